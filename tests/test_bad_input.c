/* test_bad_input.c: each wrong argument and each hostile place gets its named error and a sentence
 * with the facts, and what was stored stays.
 *
 * Every case runs on a database with records; afterwards its digest must be the same. */
#define _DEFAULT_SOURCE 1 /* setgroups is in no standard */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <math.h>
#include <sys/types.h>
#include <sys/wait.h>

#include "crash_vfs.h"
#include "support.h"
#include "test.h"

#define INPUT_DIM 4

static char input_path[4096];
static omendb *input_db;
static omendb_collection *input_l2, *input_cosine, *input_small;

static omendb_schema input_schema(uint32_t metric, uint32_t scalar)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = INPUT_DIM;
    schema.metric = metric;
    schema.scalar = scalar;
    return schema;
}

/* Ten records in each of three collections. 1 when all went well. */
static int input_begin(const char *name)
{
    const omendb_schema l2 = input_schema(OMENDB_L2, OMENDB_F32),
                        cosine = input_schema(OMENDB_COSINE, OMENDB_F32),
                        small = input_schema(OMENDB_L2, OMENDB_F16);
    snprintf(input_path, sizeof input_path, "%s", support_path(name));
    int good = omendb_open(input_path, NULL, &input_db) == OMENDB_OK;
    good = good && omendb_collection_create(input_db, "l2", &l2, &input_l2) == OMENDB_OK;
    good =
        good && omendb_collection_create(input_db, "cosine", &cosine, &input_cosine) == OMENDB_OK;
    good = good && omendb_collection_create(input_db, "small", &small, &input_small) == OMENDB_OK;
    for (uint64_t i = 0; i < 10 && good; i++) {
        good = support_put(input_l2, NULL, i, i + 1, INPUT_DIM) == OMENDB_OK &&
               support_put(input_cosine, NULL, i, i + 1, INPUT_DIM) == OMENDB_OK &&
               support_put(input_small, NULL, i, i + 1, INPUT_DIM) == OMENDB_OK;
    }
    return good;
}

static uint64_t input_digest(void)
{
    uint64_t digest = 0;
    return support_digest(input_db, NULL, &digest) == OMENDB_OK ? digest : 0;
}

static int input_end(void)
{
    omendb_collection_close(input_l2);
    omendb_collection_close(input_cosine);
    omendb_collection_close(input_small);
    input_l2 = input_cosine = input_small = NULL;
    const int status = omendb_close(input_db);
    input_db = NULL;
    return status;
}

/* 1 where the code is the expected one and the sentence has the word. */
static int input_is(int status, int expected, const char *word)
{
    if (status == expected && strlen(omendb_errmsg()) > 5 && strstr(omendb_errmsg(), word) != NULL)
        return 1;
    fprintf(stderr, "    got \"%s\" (%s), expected \"%s\" with the word \"%s\"\n",
            omendb_strerror(status), omendb_errmsg(), omendb_strerror(expected), word);
    return 0;
}

/* As input_is, and the sentence lacks the other word. */
static int input_is_without(int status, int expected, const char *word, const char *absent)
{
    if (strstr(omendb_errmsg(), absent) == NULL)
        return input_is(status, expected, word);
    fprintf(stderr, "    \"%s\" has the word \"%s\"\n", omendb_errmsg(), absent);
    return 0;
}

static int input_add(omendb_collection *collection, uint64_t id, const float *vector)
{
    omendb_record record = OMENDB_RECORD_INIT;
    record.id = id;
    record.vector = vector;
    return omendb_add(collection, NULL, &record, NULL);
}

TEST(vectors_that_are_no_vectors_are_refused)
{
    const float nan_vector[INPUT_DIM] = {1, NAN, 0, 0}, infinite[INPUT_DIM] = {0, 0, INFINITY, 0},
                zero[INPUT_DIM] = {0, 0, 0, 0}, huge[INPUT_DIM] = {1e30f, 1e30f, 1e30f, 1e30f},
                over_f16[INPUT_DIM] = {70000.0f, 0, 0, 0};
    CHECK(input_begin("vectors"));
    const uint64_t before = input_digest();
    CHECK(input_is(input_add(input_l2, 100, nan_vector), OMENDB_INVALID, "1"));
    CHECK(input_is(input_add(input_l2, 100, infinite), OMENDB_INVALID, "2"));
    CHECK(input_is(input_add(input_cosine, 100, zero), OMENDB_INVALID, "zero"));
    CHECK(input_is(input_add(input_l2, 100, huge), OMENDB_INVALID, ""));
    CHECK(input_is(input_add(input_small, 100, over_f16), OMENDB_INVALID, ""));
    CHECK_EQ_INT(input_add(input_l2, 100, zero), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(input_l2, NULL, 100), OMENDB_OK);
    CHECK(input_digest() == before);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

TEST(a_batch_with_one_bad_row_changes_nothing_and_names_the_row)
{
    float vectors[6 * INPUT_DIM];
    uint64_t ids[6] = {20, 21, 22, 23, 24, 25};
    for (uint64_t i = 0; i < 6; i++)
        support_vector(i + 90, INPUT_DIM, vectors + i * INPUT_DIM);
    CHECK(input_begin("batches"));
    const uint64_t before = input_digest();
    vectors[4 * INPUT_DIM + 2] = NAN;
    CHECK(input_is(omendb_add_batch(input_l2, NULL, 6, ids, vectors, OMENDB_F32, NULL),
                   OMENDB_INVALID, "4"));
    CHECK(input_is(omendb_put_batch(input_l2, NULL, 6, ids, vectors, OMENDB_F32, NULL),
                   OMENDB_INVALID, "4"));
    vectors[4 * INPUT_DIM + 2] = 1.0f;
    ids[3] = 5;
    CHECK(input_is(omendb_add_batch(input_l2, NULL, 6, ids, vectors, OMENDB_F32, NULL),
                   OMENDB_EXISTS, "5"));
    ids[3] = 20;
    const int twice = omendb_add_batch(input_l2, NULL, 6, ids, vectors, OMENDB_F32, NULL);
    CHECK(twice == OMENDB_INVALID || twice == OMENDB_EXISTS);
    CHECK(strstr(omendb_errmsg(), "20") != NULL);
    ids[3] = OMENDB_ID_AUTO;
    CHECK(input_digest() == before);
    CHECK(input_is(omendb_add_batch(input_l2, NULL, 6, ids, NULL, OMENDB_F32, NULL), OMENDB_MISUSE,
                   ""));
    CHECK(input_is(omendb_add_batch(input_l2, NULL, 6, NULL, vectors, 77, NULL), OMENDB_INVALID,
                   "77"));
    CHECK(input_is(omendb_add_batch(input_l2, NULL, SIZE_MAX / 2, NULL, vectors, OMENDB_F32, NULL),
                   OMENDB_TOOBIG, ""));
    CHECK(input_digest() == before);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

TEST(ids_that_are_taken_or_absent_are_named)
{
    float vector[INPUT_DIM];
    support_vector(4, INPUT_DIM, vector);
    CHECK(input_begin("ids"));
    const uint64_t before = input_digest();
    CHECK(input_is(input_add(input_l2, 7, vector), OMENDB_EXISTS, "7"));
    CHECK(input_is(omendb_delete(input_l2, NULL, 12345), OMENDB_NOTFOUND, "12345"));
    CHECK(
        input_is(omendb_get(input_l2, NULL, 12345, OMENDB_F32, vector), OMENDB_NOTFOUND, "12345"));
    CHECK(input_is(omendb_get(input_l2, NULL, 1, OMENDB_I8, vector), OMENDB_INVALID, ""));
    CHECK(input_digest() == before);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

TEST(a_query_without_sense_is_refused)
{
    float vector[INPUT_DIM] = {1, 2, 3, 4};
    const float zero[INPUT_DIM] = {0, 0, 0, 0};
    uint64_t ids[10];
    size_t count = 77;
    omendb_query query = OMENDB_QUERY_INIT;
    CHECK(input_begin("queries"));
    query.vector = vector;
    query.k = 0;
    CHECK(input_is(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_INVALID, "k"));
    query.k = 10;
    vector[0] = NAN;
    CHECK(input_is(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_INVALID, ""));
    vector[0] = INFINITY;
    CHECK(input_is(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_INVALID, ""));
    query.vector = zero;
    CHECK(
        input_is(omendb_search(input_cosine, NULL, &query, ids, NULL, &count), OMENDB_INVALID, ""));
    query.vector_type = 99;
    CHECK(input_is(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_INVALID, ""));
    query.vector_type = OMENDB_F32;
    query.vector = NULL;
    query.id = 999;
    CHECK(
        input_is(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_NOTFOUND, "999"));
    query.vector = zero;
    query.use_radius = 1;
    query.radius = NAN;
    CHECK(input_is(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_INVALID, ""));
    query.use_radius = 0;
    query.radius = 1.0f;
    CHECK(input_is(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_INVALID,
                   "use_radius"));
    query.radius = 0.0f;
    query.exact = 2;
    CHECK(input_is(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_INVALID,
                   "exact"));
    query.exact = 0;
    query.k = SIZE_MAX / 64;
    CHECK(input_is(omendb_search_batch(input_l2, NULL, &query, zero, 16, ids, NULL, NULL),
                   OMENDB_TOOBIG, "16 queries"));
    query.k = 10;
    CHECK(input_is(omendb_get(input_l2, NULL, 999, 77, NULL), OMENDB_INVALID, "77"));
    query.stretch = NAN;
    CHECK(input_is(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_INVALID, ""));
    query.stretch = 0.5f;
    CHECK(input_is(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_INVALID, ""));
    query.stretch = 0.0f;
    query.ef = UINT32_MAX;
    const int status = omendb_search(input_l2, NULL, &query, ids, NULL, &count);
    CHECK(status == OMENDB_OK || status == OMENDB_INVALID);
    query.ef = 0;
    CHECK_EQ_INT(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 10);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

TEST(null_where_none_is_allowed_is_misuse)
{
    float vector[INPUT_DIM];
    uint64_t ids[10], count = 0;
    size_t found = 0;
    omendb *db = NULL;
    omendb_collection *collection = (omendb_collection *)&db;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_record record = OMENDB_RECORD_INIT;
    omendb_txn *txn = NULL;
    omendb_rows *rows = NULL;
    CHECK(input_begin("null"));
    const uint64_t before = input_digest();
    query.vector = vector;
    CHECK(input_is(omendb_open(NULL, NULL, &db), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_open("x", NULL, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_collection_open(NULL, "l2", NULL, &collection), OMENDB_MISUSE, ""));
    CHECK(collection == NULL);
    CHECK(input_is(omendb_collection_open(input_db, NULL, NULL, &collection), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_collection_open(input_db, "l2", NULL, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_collection_create(input_db, "x", NULL, &collection), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_collection_open_or_create(input_db, "l2", NULL, &collection),
                   OMENDB_MISUSE, "schema"));
    CHECK(collection == NULL);
    CHECK(input_is(omendb_add(NULL, NULL, &record, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_add(input_l2, NULL, NULL, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_add(input_l2, NULL, &record, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_delete_batch(input_l2, NULL, 3, NULL, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_count(input_l2, NULL, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_count(NULL, NULL, &count), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_scan(input_l2, NULL, 0, 9, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_rows_next(NULL, ids, OMENDB_F32, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_search(input_l2, NULL, NULL, ids, NULL, &found), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_search(input_l2, NULL, &query, NULL, NULL, &found), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_search(input_l2, NULL, &query, ids, NULL, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_txn_begin(input_db, OMENDB_READ_WRITE, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_txn_begin(NULL, OMENDB_READ_WRITE, &txn), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_txn_commit(NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_checkpoint(NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_checkpoint((omendb *)(void *)input_l2), OMENDB_MISUSE, "db"));
    CHECK(input_is(omendb_optimize(NULL, NULL, NULL), OMENDB_MISUSE, ""));
    CHECK(input_is(omendb_backup(input_db, NULL), OMENDB_MISUSE, ""));
    omendb_txn_rollback(NULL);
    omendb_rows_close(rows);
    omendb_collection_close(NULL);
    omendb_release(NULL);
    CHECK_EQ_INT(omendb_close(NULL), OMENDB_OK);
    CHECK(input_digest() == before);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

TEST(wrong_use_of_transactions_is_refused)
{
    omendb_txn *txn = NULL;
    omendb *other = NULL;
    omendb_collection *elsewhere = NULL;
    const omendb_schema schema = input_schema(OMENDB_L2, OMENDB_F32);
    CHECK(input_begin("transactions"));
    CHECK_EQ_INT(omendb_txn_begin(input_db, OMENDB_READ_ONLY, &txn), OMENDB_OK);
    CHECK(input_is(support_put(input_l2, txn, 1, 1, INPUT_DIM), OMENDB_READONLY, ""));
    CHECK(input_is(omendb_close(input_db), OMENDB_BUSY, ""));
    CHECK_EQ_INT(omendb_open(":memory:", NULL, &other), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(other, "l2", &schema, &elsewhere), OMENDB_OK);
    CHECK(input_is(support_put(elsewhere, txn, 1, 1, INPUT_DIM), OMENDB_MISUSE, ""));
    omendb_txn_rollback(txn);
    CHECK(input_is(omendb_txn_begin(input_db, 99, &txn), OMENDB_INVALID, ""));
    CHECK(txn == NULL);
    CHECK(input_is(omendb_collection_drop(other, "absent"), OMENDB_NOTFOUND, "absent"));
    CHECK_EQ_INT(omendb_collection_drop(other, "l2"), OMENDB_OK);
    CHECK(input_is(support_put(elsewhere, NULL, 1, 1, INPUT_DIM), OMENDB_DROPPED, "l2"));
    omendb_collection_close(elsewhere);
    CHECK_EQ_INT(omendb_close(other), OMENDB_OK);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

TEST(a_cursor_of_an_ended_transaction_is_refused)
{
    for (int mode = OMENDB_READ_WRITE; mode <= OMENDB_READ_ONLY; mode++) {
        omendb_txn *txn = NULL;
        omendb_rows *rows = NULL;
        CHECK(input_begin("cursor"));
        CHECK_EQ_INT(omendb_txn_begin(input_db, mode, &txn), OMENDB_OK);
        if (mode == OMENDB_READ_WRITE)
            CHECK_EQ_INT(support_put(input_l2, txn, 77, 1, INPUT_DIM), OMENDB_OK);
        CHECK_EQ_INT(omendb_scan(input_l2, txn, 0, UINT64_MAX - 1, &rows), OMENDB_OK);
        CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
        CHECK(input_is(omendb_rows_next(rows, NULL, OMENDB_F32, NULL), OMENDB_MISUSE, "ended"));
        omendb_rows_close(rows);
        if (mode == OMENDB_READ_WRITE)
            CHECK_EQ_INT(omendb_delete(input_l2, NULL, 77), OMENDB_OK);
        CHECK_EQ_INT(input_end(), OMENDB_OK);
    }
}

TEST(a_row_is_named_only_in_batches)
{
    float vectors[2 * INPUT_DIM] = {1, 2, 3, 4, NAN, 2, 3, 4};
    uint64_t ids[10];
    size_t count = 0;
    omendb_txn *txn = NULL;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_record record = OMENDB_RECORD_INIT;
    CHECK(input_begin("rows"));
    CHECK(input_is_without(input_add(input_l2, 50, vectors + INPUT_DIM), OMENDB_INVALID,
                           "element 0", "row"));
    CHECK(input_is_without(input_add(input_l2, 7, vectors), OMENDB_EXISTS, "id 7", "row"));
    query.vector = vectors + INPUT_DIM;
    CHECK(input_is_without(omendb_search(input_l2, NULL, &query, ids, NULL, &count), OMENDB_INVALID,
                           "element 0", "row"));
    CHECK_EQ_INT(omendb_txn_begin(input_db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    record.id = 7;
    record.vector = vectors;
    CHECK(input_is_without(omendb_add(input_l2, txn, &record, NULL), OMENDB_EXISTS, "id 7", "row"));
    omendb_txn_rollback(txn);
    ids[0] = 50;
    ids[1] = 7;
    CHECK(input_is(omendb_add_batch(input_l2, NULL, 2, ids, vectors, OMENDB_F32, NULL),
                   OMENDB_INVALID, "row 1: element 0"));
    vectors[INPUT_DIM] = 1;
    CHECK(input_is(omendb_add_batch(input_l2, NULL, 2, ids, vectors, OMENDB_F32, NULL),
                   OMENDB_EXISTS, "row 1: id 7"));
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

TEST(metrics_and_types_are_called_by_their_names)
{
    float vector[INPUT_DIM];
    omendb_rows *rows = NULL;
    omendb_collection *collection = NULL;
    omendb_schema schema = input_schema(OMENDB_L2, OMENDB_F32);
    CHECK(input_begin("names"));
    CHECK(input_is(omendb_collection_open(input_db, "cosine", &schema, &collection),
                   OMENDB_MISMATCH, "metric cosine, not l2"));
    schema.metric = OMENDB_INNER_PRODUCT;
    CHECK(input_is(omendb_collection_open(input_db, "cosine", &schema, &collection),
                   OMENDB_MISMATCH, "metric cosine, not ip"));
    schema = input_schema(OMENDB_L2, OMENDB_U8);
    CHECK(input_is(omendb_collection_open(input_db, "l2", &schema, &collection), OMENDB_MISMATCH,
                   "scalar f32, not u8"));
    schema = input_schema(OMENDB_HAMMING, OMENDB_BF16);
    CHECK(input_is(omendb_collection_create(input_db, "x", &schema, &collection), OMENDB_INVALID,
                   "metric hamming does not go with scalar bf16"));
    schema.metric = 9;
    CHECK(input_is(omendb_collection_create(input_db, "x", &schema, &collection), OMENDB_INVALID,
                   "metric is 9; there are l2 (0)"));
    CHECK(input_is(omendb_get(input_small, NULL, 1, OMENDB_I8, vector), OMENDB_INVALID,
                   "stores f16 vectors, which cannot be given as i8"));
    CHECK_EQ_INT(omendb_scan(input_small, NULL, 0, 9, &rows), OMENDB_OK);
    CHECK(input_is(omendb_rows_next(rows, NULL, OMENDB_I8, vector), OMENDB_INVALID,
                   "stores f16 vectors, which cannot be given as i8"));
    CHECK(input_is(omendb_rows_next(rows, NULL, 9, vector), OMENDB_INVALID, "vector_type is 9"));
    omendb_rows_close(rows);
    CHECK_EQ_STR(omendb_metric_name(OMENDB_HAMMING), "hamming");
    CHECK_EQ_STR(omendb_metric_name(-1), "unknown metric");
    CHECK_EQ_STR(omendb_scalar_name(OMENDB_BF16), "bf16");
    CHECK_EQ_STR(omendb_scalar_name(6), "unknown type");
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

TEST(what_is_still_open_is_counted)
{
    omendb *db = NULL;
    omendb_collection *first = NULL, *second = NULL;
    omendb_txn *txn = NULL;
    omendb_rows *rows = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    CHECK(input_begin("open"));
    CHECK_EQ_INT(input_end(), OMENDB_OK);
    options.read_only = 1;
    CHECK_EQ_INT(omendb_open(input_path, &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(db, "l2", NULL, &first), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_BUSY);
    CHECK_EQ_STR(omendb_errmsg(), "1 collection is open; close it first");
    CHECK_EQ_INT(omendb_collection_open(db, "l2", NULL, &second), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(first, NULL, 0, 9, &rows), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_BUSY);
    CHECK_EQ_STR(omendb_errmsg(), "2 collections and 1 cursor are open; close them first");
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_BUSY);
    CHECK_EQ_STR(omendb_errmsg(),
                 "2 collections, 1 transaction and 1 cursor are open; close them first");
    CHECK_EQ_INT(omendb_refresh(db), OMENDB_BUSY);
    CHECK_EQ_STR(omendb_errmsg(), "1 transaction is open; close it first");
    omendb_rows_close(rows);
    omendb_collection_close(first);
    omendb_collection_close(second);
    CHECK_EQ_INT(omendb_close(db), OMENDB_BUSY);
    CHECK_EQ_STR(omendb_errmsg(), "1 transaction is open; close it first");
    omendb_txn_rollback(txn);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(the_first_to_commit_wins_and_the_other_is_told)
{
    omendb_txn *first = NULL, *second = NULL, *snapshot = NULL;
    omendb_collection *later = NULL;
    omendb_record record = OMENDB_RECORD_INIT;
    const omendb_schema schema = input_schema(OMENDB_L2, OMENDB_F32);
    float vector[INPUT_DIM];
    uint64_t ids[2], count = 77;
    support_vector(4, INPUT_DIM, vector);
    record.vector = vector;
    CHECK(input_begin("conflicts"));
    CHECK_EQ_INT(omendb_txn_begin(input_db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(input_db, OMENDB_READ_WRITE, &first), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(input_db, OMENDB_READ_WRITE, &second), OMENDB_OK);
    CHECK_EQ_INT(omendb_add(input_l2, first, &record, &ids[0]), OMENDB_OK);
    CHECK_EQ_INT(omendb_add(input_l2, second, &record, &ids[1]), OMENDB_OK);
    CHECK(ids[0] != ids[1]);
    record.id = 100;
    CHECK_EQ_INT(omendb_add(input_l2, first, &record, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_add(input_l2, second, &record, NULL), OMENDB_OK);
    CHECK(input_is(omendb_add(input_l2, second, &record, NULL), OMENDB_EXISTS, "100"));
    CHECK_EQ_INT(omendb_txn_commit(first), OMENDB_OK);
    CHECK(input_is(omendb_txn_commit(second), OMENDB_CONFLICT, "another commit"));
    CHECK_EQ_INT(omendb_txn_begin(input_db, OMENDB_READ_WRITE, &first), OMENDB_OK);
    record.id = 101;
    CHECK_EQ_INT(omendb_add(input_l2, first, &record, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_add(input_l2, NULL, &record, NULL), OMENDB_OK);
    CHECK(input_is(omendb_txn_commit(first), OMENDB_CONFLICT, "101"));
    CHECK_EQ_INT(omendb_collection_create(input_db, "later", &schema, &later), OMENDB_OK);
    CHECK_EQ_INT(support_put(later, NULL, 1, 1, INPUT_DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_count(later, snapshot, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 0);
    CHECK_EQ_INT(omendb_txn_begin(input_db, OMENDB_READ_WRITE, &first), OMENDB_OK);
    CHECK_EQ_INT(support_put(later, first, 2, 2, INPUT_DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_drop(input_db, "later"), OMENDB_OK);
    CHECK(input_is(omendb_txn_commit(first), OMENDB_DROPPED, "later"));
    CHECK(input_is(omendb_count(later, snapshot, &count), OMENDB_DROPPED, "later"));
    omendb_txn_rollback(snapshot);
    omendb_collection_close(later);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

TEST(a_cursor_shows_the_state_that_it_was_opened_at)
{
    omendb *reader = NULL;
    omendb_collection *collection = NULL;
    omendb_rows *rows[2] = {NULL, NULL};
    omendb_options options = OMENDB_OPTIONS_INIT;
    float vector[INPUT_DIM], expected[INPUT_DIM];
    uint64_t id = 0;
    CHECK(input_begin("cursors"));
    options.read_only = 1;
    CHECK_EQ_INT(omendb_open(input_path, &options, &reader), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(reader, "l2", NULL, &collection), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(collection, NULL, 0, 99, &rows[0]), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(input_l2, NULL, 0, 99, &rows[1]), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(input_l2, NULL, 3), OMENDB_OK);
    CHECK_EQ_INT(support_put(input_l2, NULL, 4, 99, INPUT_DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(input_db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(reader), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_drop(input_db, "l2"), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(input_db), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(reader), OMENDB_OK);
    for (int i = 0; i < 2; i++) {
        for (uint64_t row = 0; row < 10; row++) {
            CHECK_EQ_INT(omendb_rows_next(rows[i], &id, OMENDB_F32, vector), OMENDB_OK);
            support_vector(row + 1, INPUT_DIM, expected);
            CHECK(id == row && memcmp(vector, expected, sizeof vector) == 0);
        }
        CHECK_EQ_INT(omendb_rows_next(rows[i], NULL, OMENDB_F32, NULL), OMENDB_DONE);
        omendb_rows_close(rows[i]);
    }
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(reader), OMENDB_OK);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

/* What a later header's struct looks like to this library. */
struct input_later_options {
    omendb_options options;
    uint64_t later;
};

TEST(structs_of_other_sizes_are_told_apart)
{
    struct input_later_options later = {OMENDB_OPTIONS_INIT, 0};
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_allocator allocator = {0};
    omendb_vfs vfs = *omendb_default_vfs();
    omendb *db = NULL;
    later.options.struct_size = sizeof later;
    CHECK_EQ_INT(omendb_open(":memory:", &later.options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    later.later = 1;
    CHECK(input_is(omendb_open(":memory:", &later.options, &db), OMENDB_INVALID, "does not know"));
    options.struct_size = sizeof options - 1;
    CHECK(input_is(omendb_open(":memory:", &options, &db), OMENDB_MISUSE, "struct_size"));
    options.struct_size = 0x5a5a5a5a;
    CHECK(input_is(omendb_open(":memory:", &options, &db), OMENDB_MISUSE, "was not set"));
    options.struct_size = sizeof options;
    options.allocator = &allocator;
    CHECK(input_is(omendb_open(":memory:", &options, &db), OMENDB_MISUSE, "options.allocator"));
    allocator.struct_size = sizeof allocator;
    CHECK(input_is(omendb_open(":memory:", &options, &db), OMENDB_MISUSE, "a function of"));
    options.allocator = NULL;
    options.vfs = &vfs;
    vfs.struct_size = 0;
    CHECK(input_is(omendb_open("x", &options, &db), OMENDB_MISUSE, "options.vfs"));
    vfs.struct_size = sizeof vfs;
    vfs.sync = NULL;
    CHECK(input_is(omendb_open("x", &options, &db), OMENDB_MISUSE, "a function of options.vfs"));
    CHECK(db == NULL);
}

TEST(init_functions_give_what_the_macros_give)
{
    const omendb_stats stats = OMENDB_STATS_INIT;
    const omendb_collection_stats collection_stats = OMENDB_COLLECTION_STATS_INIT;
    const omendb_explain explain = OMENDB_EXPLAIN_INIT;
    omendb_stats made_stats;
    omendb_collection_stats made_collection_stats;
    omendb_explain made_explain;
    memset(&made_stats, 0x5a, sizeof made_stats);
    memset(&made_collection_stats, 0x5a, sizeof made_collection_stats);
    memset(&made_explain, 0x5a, sizeof made_explain);
    CHECK(input_begin("init"));
    CHECK(input_is(omendb_get_stats(input_db, &made_stats), OMENDB_MISUSE, "stats.struct_size"));
    omendb_stats_init(&made_stats);
    omendb_collection_stats_init(&made_collection_stats);
    omendb_explain_init(&made_explain);
    CHECK(memcmp(&made_stats, &stats, sizeof stats) == 0);
    CHECK(memcmp(&made_collection_stats, &collection_stats, sizeof collection_stats) == 0);
    CHECK(memcmp(&made_explain, &explain, sizeof explain) == 0);
    CHECK_EQ_INT(omendb_get_stats(input_db, &made_stats), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_get_stats(input_l2, &made_collection_stats), OMENDB_OK);
    CHECK_EQ_INT(made_stats.records, 30);
    CHECK_EQ_INT(made_collection_stats.records, 10);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

TEST(options_that_make_no_sense_are_refused)
{
    omendb *db = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.sync = 7;
    CHECK(input_is(omendb_open(":memory:", &options, &db), OMENDB_INVALID, "OMENDB_SYNC_FULL (0)"));
    options.sync = OMENDB_SYNC_FULL;
    options.io = 7;
    CHECK(input_is(omendb_open(":memory:", &options, &db), OMENDB_INVALID, "OMENDB_IO_MAP (0)"));
    options.io = OMENDB_IO_MAP;
    options.threads = -2;
    CHECK(input_is(omendb_open(":memory:", &options, &db), OMENDB_INVALID, "threads is -2"));
    options.threads = 0;
    options.memory_limit = 3 << 20;
    CHECK(input_is(omendb_open(":memory:", &options, &db), OMENDB_INVALID, "at least 8388608"));
    CHECK(strstr(omendb_errmsg(), "3145728") != NULL);
    options.memory_limit = 0;
    options.read_only = 1;
    CHECK(input_is(omendb_open(":memory:", &options, &db), OMENDB_INVALID, "begins empty"));
    options.read_only = 0;
    options.must_exist = 1;
    CHECK(input_is(omendb_open(":memory:", &options, &db), OMENDB_INVALID, "begins empty"));
    CHECK(db == NULL);
}

TEST(ids_beyond_the_last_automatic_one_are_full)
{
    float vector[INPUT_DIM];
    omendb_txn *txn = NULL;
    omendb_record record = OMENDB_RECORD_INIT;
    support_vector(4, INPUT_DIM, vector);
    record.vector = vector;
    CHECK(input_begin("automatic"));
    CHECK_EQ_INT(input_add(input_l2, UINT64_MAX - 1, vector), OMENDB_OK);
    CHECK(input_is(omendb_add(input_l2, NULL, &record, NULL), OMENDB_FULL, "give ids yourself"));
    CHECK_EQ_INT(omendb_txn_begin(input_db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK(input_is(omendb_add(input_l2, txn, &record, NULL), OMENDB_FULL, "give ids yourself"));
    omendb_txn_rollback(txn);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

/* Batches of twice as many rows each time, and a transaction of ever more, until no memory is left
 * for either. 1 when both ended so. */
static int input_exhaust(omendb *db, omendb_collection *collection, uint32_t dim)
{
    char copy[4200];
    uint64_t ids[100];
    float vector[SUPPORT_DIM_MAX];
    size_t found;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_txn *txn = NULL;
    int code = OMENDB_OK;
    for (size_t rows = 64; code == OMENDB_OK && rows < (size_t)1 << 20; rows *= 2) {
        float *vectors = calloc(rows * dim, sizeof *vectors);
        for (size_t i = 0; vectors != NULL && i < rows; i++)
            vectors[i * dim] = (float)(i + 1);
        code = omendb_add_batch(collection, NULL, rows, NULL, vectors, OMENDB_F32, NULL);
        free(vectors);
    }
    int good = input_is(code, OMENDB_NOMEM, "memory_limit");
    code = omendb_txn_begin(db, OMENDB_READ_WRITE, &txn);
    for (uint64_t id = UINT64_C(1) << 40; code == OMENDB_OK && id < UINT64_C(1) << 41; id++)
        code = support_put(collection, txn, id, id, dim);
    /* It is over the share of transactions, or what writers left is less. */
    good = good &&
           input_is(code, code == OMENDB_TOOBIG ? OMENDB_TOOBIG : OMENDB_NOMEM, "memory_limit");
    /* What writers cannot have is there for searches, and for upkeep. */
    support_vector(1, dim, vector);
    query.vector = vector;
    query.k = 100;
    good = good && omendb_search(collection, NULL, &query, ids, NULL, &found) == OMENDB_OK &&
           found == query.k;
    snprintf(copy, sizeof copy, "%s/smallest-copy", support_folder());
    support_remove(copy);
    good = good && omendb_checkpoint(db) == OMENDB_OK && support_check(db) == OMENDB_OK &&
           omendb_backup(db, copy) == OMENDB_OK;
    support_remove(copy);
    code = omendb_txn_commit(txn);
    return good && (code == OMENDB_NOMEM || code == OMENDB_OK) &&
           support_put(collection, NULL, 7, 7, dim) == OMENDB_OK;
}

TEST(the_smallest_memory_limit_is_enough_to_close_reopen_and_check)
{
    for (int32_t threads = 0; threads <= 2; threads += 2) {
        for (uint32_t io = OMENDB_IO_MAP; io <= OMENDB_IO_PREAD; io++) {
            omendb *db = NULL;
            omendb_collection *collection = NULL;
            omendb_options options = OMENDB_OPTIONS_INIT;
            omendb_schema schema = input_schema(OMENDB_L2, OMENDB_F32);
            const char *path = support_path("smallest");
            uint64_t before = 0, after = 0;
            schema.dim = SUPPORT_DIM_MAX;
            options.memory_limit = OMENDB_MEMORY_LIMIT_MIN;
            options.threads = threads;
            options.io = io;
            CHECK_EQ_INT(omendb_open(path, &options, &db), OMENDB_OK);
            CHECK_EQ_INT(omendb_collection_create(db, "c", &schema, &collection), OMENDB_OK);
            CHECK(input_exhaust(db, collection, SUPPORT_DIM_MAX));
            CHECK_EQ_INT(omendb_count(collection, NULL, &before), OMENDB_OK);
            omendb_collection_close(collection);
            CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
            CHECK_EQ_INT(omendb_open(path, &options, &db), OMENDB_OK);
            CHECK_EQ_INT(omendb_collection_open(db, "c", NULL, &collection), OMENDB_OK);
            CHECK_EQ_INT(omendb_count(collection, NULL, &after), OMENDB_OK);
            CHECK(after == before && after > 64);
            CHECK_EQ_INT(support_check(db), OMENDB_OK);
            CHECK_EQ_INT(support_put(collection, NULL, 8, 8, SUPPORT_DIM_MAX), OMENDB_OK);
            omendb_collection_close(collection);
            CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        }
    }
}

enum { INPUT_LARGE_DIM = 256, INPUT_LARGE_BATCH = 256 };

/* A quarter of a megabyte of vectors each. */
static int input_add_large(omendb_collection *collection, uint64_t batches)
{
    enum { VALUES = INPUT_LARGE_DIM * INPUT_LARGE_BATCH };
    static float vectors[VALUES];
    int code = OMENDB_OK;
    for (uint64_t i = 0; i < batches && code == OMENDB_OK; i++) {
        for (size_t at = 0; at < VALUES; at++)
            vectors[at] = (float)(support_mix(i * VALUES + at) % 100);
        code =
            omendb_add_batch(collection, NULL, INPUT_LARGE_BATCH, NULL, vectors, OMENDB_F32, NULL);
        if (code != OMENDB_OK)
            fprintf(stderr, "    batch %d: %s\n", (int)i, omendb_errmsg());
    }
    return code;
}

/* Adds rows whose vectors alone take six times the limit; every call must succeed. */
static int input_add_beyond_limit(int32_t threads, uint64_t *checkpoints)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_stats stats = OMENDB_STATS_INIT;
    schema.dim = INPUT_LARGE_DIM;
    schema.M = 2;
    schema.ef_construction = 8;
    options.memory_limit = OMENDB_MEMORY_LIMIT_MIN;
    options.threads = threads;
    options.stall_timeout_ms = 300000; /* a slow build's merge holds what the writer waits for */
    options.sync = OMENDB_SYNC_OFF;
    options.wal_limit = UINT64_C(1) << 30;
    options.tail_limit = UINT64_C(1) << 30;
    int code = omendb_open(support_path("beyond"), &options, &db);
    if (code == OMENDB_OK)
        code = omendb_collection_create(db, "c", &schema, &collection);
    if (code == OMENDB_OK)
        code = input_add_large(collection, 192);
    if (code == OMENDB_OK)
        code = omendb_get_stats(db, &stats);
    *checkpoints = stats.checkpoints;
    omendb_collection_close(collection);
    const int closed = omendb_close(db);
    if (code == OMENDB_OK && stats.memory_peak_bytes > options.memory_limit)
        code = OMENDB_CORRUPT;
    return code == OMENDB_OK ? closed : code;
}

TEST(writers_that_do_the_work_go_on_under_a_memory_limit)
{
    uint64_t checkpoints = 0;
    CHECK_EQ_INT(input_add_beyond_limit(0, &checkpoints), OMENDB_OK);
    CHECK(checkpoints > 6);
}

TEST(writers_go_on_under_a_memory_limit_kept_in_the_background)
{
    uint64_t checkpoints = 0;
    CHECK_EQ_INT(input_add_beyond_limit(2, &checkpoints), OMENDB_OK);
    CHECK(checkpoints > 6);
}

TEST(a_backup_to_no_directory_is_refused)
{
    char path[4200];
    omendb *reader = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    CHECK(input_begin("backup"));
    CHECK(input_is(omendb_backup(input_db, ":memory:"), OMENDB_INVALID, "directory"));
    CHECK(input_is(omendb_backup(input_db, ""), OMENDB_INVALID, "directory"));
    snprintf(path, sizeof path, "%s-file", input_path);
    FILE *file = fopen(path, "w");
    CHECK(file != NULL && fclose(file) == 0);
    CHECK(input_is(omendb_backup(input_db, path), OMENDB_FORMAT, "is not a directory"));
    CHECK(input_is(omendb_backup(input_db, input_path), OMENDB_EXISTS, "not empty"));
    snprintf(path, sizeof path, "%s/no/such", input_path);
    CHECK(input_is(omendb_backup(input_db, path), OMENDB_NOTFOUND, "parent directory"));
    options.read_only = 1;
    CHECK_EQ_INT(omendb_open(input_path, &options, &reader), OMENDB_OK);
    CHECK(input_is(omendb_backup(reader, "x"), OMENDB_READONLY, "through the writing one"));
    CHECK_EQ_INT(omendb_close(reader), OMENDB_OK);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

TEST(a_backup_into_the_database_itself_is_refused)
{
    char path[4200];
    struct stat facts;
    const char *const inside[] = {"%s/copy", "%s//copy/", "%s/./copy", "%s/../inside/copy",
                                  "%s-link/copy"};
    CHECK(input_begin("inside"));
    const uint64_t before = input_digest();
    snprintf(path, sizeof path, "%s-link", input_path);
    unlink(path);
    CHECK(symlink("inside", path) == 0);
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
        snprintf(path, sizeof path, inside[i], input_path);
        CHECK(input_is(omendb_backup(input_db, path), OMENDB_INVALID, "inside of the database"));
        CHECK(stat(path, &facts) != 0);
    }
    /* Directories that are there already, and one below another. */
    snprintf(path, sizeof path, "%s/empty", input_path);
    CHECK(mkdir(path, 0700) == 0);
    CHECK(input_is(omendb_backup(input_db, path), OMENDB_INVALID, "inside of the database"));
    strcat(path, "/copy");
    CHECK(input_is(omendb_backup(input_db, path), OMENDB_INVALID, "inside of the database"));
    snprintf(path, sizeof path, "%s/empty", input_path);
    CHECK(rmdir(path) == 0);
    /* Beside it is not inside of it. */
    snprintf(path, sizeof path, "%s/../inside-copy", input_path);
    support_remove(path);
    CHECK_EQ_INT(omendb_backup(input_db, path), OMENDB_OK);
    support_remove(path);
    CHECK(input_digest() == before);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

/* A file of twice the smallest limit, made without one. */
static int input_make_large(const char *path)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = INPUT_LARGE_DIM;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.tail_limit = UINT64_C(1) << 30;
    int code = omendb_open(path, &options, &db);
    if (code == OMENDB_OK)
        code = omendb_collection_create(db, "c", &schema, &collection);
    if (code == OMENDB_OK)
        code = input_add_large(collection, 64);
    omendb_collection_close(collection);
    const int closed = omendb_close(db);
    return code == OMENDB_OK ? closed : code;
}

TEST(a_backup_takes_little_memory_whatever_is_copied)
{
    char path[4096], copy[4200];
    omendb *db = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_stats before = OMENDB_STATS_INIT, after = OMENDB_STATS_INIT;
    snprintf(path, sizeof path, "%s", support_path("large"));
    snprintf(copy, sizeof copy, "%s-copy", path);
    support_remove(copy);
    CHECK_EQ_INT(input_make_large(path), OMENDB_OK);
    options.memory_limit = OMENDB_MEMORY_LIMIT_MIN;
    options.threads = 0;
    CHECK_EQ_INT(omendb_open(path, &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(db, &before), OMENDB_OK);
    CHECK(before.file_bytes > options.memory_limit);
    CHECK_EQ_INT(omendb_backup(db, copy), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(db, &after), OMENDB_OK);
    CHECK(after.memory_peak_bytes < before.memory_bytes + (UINT64_C(3) << 19));
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_open(copy, &options, &db), OMENDB_OK);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(db, &after), OMENDB_OK);
    CHECK(after.records == before.records && after.records != 0);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    support_remove(copy);
}

TEST(schemas_and_names_that_make_no_sense_are_refused)
{
    char long_name[300];
    omendb_collection *collection = NULL;
    omendb_schema schema = input_schema(OMENDB_L2, OMENDB_F32);
    memset(long_name, 'x', sizeof long_name);
    long_name[256] = '\0';
    CHECK(input_begin("schemas"));
    const uint64_t before = input_digest();
    CHECK(input_is(omendb_collection_create(input_db, "", &schema, &collection), OMENDB_INVALID,
                   "name"));
    CHECK(input_is(omendb_collection_create(input_db, long_name, &schema, &collection),
                   OMENDB_INVALID, ""));
    CHECK(input_is(omendb_collection_create(input_db, "a\nb", &schema, &collection), OMENDB_INVALID,
                   ""));
    CHECK(input_is(omendb_collection_create(input_db, "l2", &schema, &collection), OMENDB_EXISTS,
                   "l2"));
    CHECK(input_is(omendb_collection_open(input_db, "absent", NULL, &collection), OMENDB_NOTFOUND,
                   "absent"));
    schema.dim = 0;
    CHECK(input_is(omendb_collection_create(input_db, "x", &schema, &collection), OMENDB_INVALID,
                   "dim"));
    schema.dim = 65536;
    CHECK(input_is(omendb_collection_create(input_db, "x", &schema, &collection), OMENDB_INVALID,
                   "65536"));
    schema = input_schema(OMENDB_HAMMING, OMENDB_F32);
    CHECK(input_is(omendb_collection_create(input_db, "x", &schema, &collection), OMENDB_INVALID,
                   ""));
    schema = input_schema(77, OMENDB_F32);
    CHECK(input_is(omendb_collection_create(input_db, "x", &schema, &collection), OMENDB_INVALID,
                   "metric"));
    schema = input_schema(OMENDB_L2, 77);
    CHECK(input_is(omendb_collection_create(input_db, "x", &schema, &collection), OMENDB_INVALID,
                   "scalar"));
    schema = input_schema(OMENDB_L2, OMENDB_F32);
    schema.M = 1;
    CHECK(input_is(omendb_collection_create(input_db, "x", &schema, &collection), OMENDB_INVALID,
                   "M"));
    schema = input_schema(OMENDB_L2, OMENDB_F32);
    schema.dim = INPUT_DIM + 1;
    CHECK(input_is(omendb_collection_open(input_db, "l2", &schema, &collection), OMENDB_MISMATCH,
                   "dim"));
    schema.dim = 0;
    schema.metric = OMENDB_COSINE;
    CHECK(input_is(omendb_collection_open(input_db, "l2", &schema, &collection), OMENDB_MISMATCH,
                   "metric"));
    CHECK(collection == NULL);
    CHECK(input_digest() == before);
    CHECK_EQ_INT(input_end(), OMENDB_OK);
}

static int input_write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        return 0;
    const size_t written = size == 0 ? 0 : fwrite(data, 1, size, file);
    return fclose(file) == 0 && written == size;
}

TEST(paths_that_are_no_databases_are_refused)
{
    char path[4096], inside[4200];
    omendb *db = (omendb *)path;
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.must_exist = 1;
    snprintf(path, sizeof path, "%s", support_path("nothing"));
    CHECK(input_is(omendb_open(path, &options, &db), OMENDB_NOTFOUND, "there is no database at"));
    CHECK(db == NULL);
    options.must_exist = 0;
    options.read_only = 1;
    CHECK(input_is(omendb_open(path, &options, &db), OMENDB_NOTFOUND, ""));
    CHECK(access(path, F_OK) != 0);
    CHECK(input_write_file(path, "hello", 5));
    CHECK(input_is(omendb_open(path, NULL, &db), OMENDB_FORMAT, ""));
    CHECK(access(path, F_OK) == 0);
    unlink(path);
    CHECK(mkdir(path, 0700) == 0);
    snprintf(inside, sizeof inside, "%s/letter.txt", path);
    CHECK(input_write_file(inside, "dear", 4));
    CHECK(input_is(omendb_open(path, NULL, &db), OMENDB_FORMAT, "other things"));
    CHECK(strstr(omendb_errmsg(), path) != NULL);
    CHECK(access(inside, F_OK) == 0);
    unlink(inside);
    CHECK_EQ_INT(omendb_open(path, NULL, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    support_remove(path);
    snprintf(inside, sizeof inside, "%s/absent/parent", support_folder());
    CHECK(input_is(omendb_open(inside, NULL, &db), OMENDB_NOTFOUND, "parent directory"));
    CHECK(input_is(omendb_open("", NULL, &db), OMENDB_INVALID, ""));
}

/* Name of the first file that begins with `prefix`, in the database of the test. */
static int input_find_file(const char *prefix, char *found, size_t capacity)
{
    DIR *entries = opendir(input_path);
    struct dirent *entry;
    int status = 0;
    while (entries != NULL && !status && (entry = readdir(entries)) != NULL)
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0) {
            snprintf(found, capacity, "%s/%s", input_path, entry->d_name);
            status = 1;
        }
    if (entries != NULL)
        closedir(entries);
    return status;
}

/* Replaces the file by `data`, opens, expects an error with the file's kind, and puts it back. */
static int input_refuses_with(const char *prefix, const void *data, size_t size)
{
    static unsigned char kept[1 << 20];
    char path[4400];
    omendb *db = NULL;
    if (!input_find_file(prefix, path, sizeof path))
        return 0;
    FILE *file = fopen(path, "rb");
    const size_t length = file == NULL ? 0 : fread(kept, 1, sizeof kept, file);
    if (file != NULL)
        fclose(file);
    if (length == sizeof kept || !input_write_file(path, size == SIZE_MAX ? kept : data,
                                                   size == SIZE_MAX ? length / 2 : size))
        return 0;
    const int status = omendb_open(input_path, NULL, &db);
    const int good = (status == OMENDB_CORRUPT || status == OMENDB_FORMAT) &&
                     strlen(omendb_errmsg()) > 10 && strstr(omendb_errmsg(), prefix) != NULL;
    if (!good)
        fprintf(stderr, "    %s: %s (%s)\n", prefix, omendb_strerror(status), omendb_errmsg());
    omendb_close(db);
    return good && input_write_file(path, kept, length);
}

TEST(foreign_truncated_and_missing_files_are_named)
{
    static const char *const prefixes[] = {"CURRENT", "MANIFEST-", "seg-"};
    char path[4400], away[4500];
    omendb *db = NULL;
    omendb_options reader = OMENDB_OPTIONS_INIT;
    uint64_t digest = 0;
    reader.read_only = 1;
    CHECK(input_begin("files"));
    const uint64_t before = input_digest();
    CHECK_EQ_INT(input_end(), OMENDB_OK);
    for (size_t i = 0; i < 3; i++) {
        CHECK(input_refuses_with(prefixes[i], "this is a text and no database file\n", 36));
        CHECK(input_refuses_with(prefixes[i], "", 0));
        CHECK(input_refuses_with(prefixes[i], NULL, SIZE_MAX));
        CHECK(input_find_file(prefixes[i], path, sizeof path));
        snprintf(away, sizeof away, "%s.away", input_path);
        CHECK(rename(path, away) == 0);
        CHECK(input_is(omendb_open(input_path, NULL, &db), OMENDB_CORRUPT, prefixes[i]));
        CHECK(input_is(omendb_open(input_path, &reader, &db), OMENDB_CORRUPT, prefixes[i]));
        CHECK(rename(away, path) == 0);
    }
    CHECK_EQ_INT(omendb_open(input_path, NULL, &db), OMENDB_OK);
    CHECK_EQ_INT(support_digest(db, NULL, &digest), OMENDB_OK);
    CHECK(digest == before);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* In a child that is nobody: opens, expects OMENDB_PERMISSION. */
static int input_as_nobody(uint32_t read_only)
{
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        omendb *db = NULL;
        omendb_options options = OMENDB_OPTIONS_INIT;
        options.read_only = read_only;
        if (getuid() == 0 && (setgroups(0, NULL) != 0 || setgid(65534) != 0 || setuid(65534) != 0))
            _exit(2);
        const int opened = omendb_open(input_path, &options, &db);
        _exit(input_is(opened, OMENDB_PERMISSION, "ermission") ? 0 : 1);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return 1;
    return WEXITSTATUS(status);
}

TEST(no_permission_is_named)
{
    omendb *db = NULL;
    CHECK(input_begin("permission"));
    CHECK_EQ_INT(input_end(), OMENDB_OK);
    CHECK(chmod(input_path, 0) == 0);
    int status = input_as_nobody(0);
    if (status != 2)
        CHECK_EQ_INT(status, 0);
    status = input_as_nobody(1);
    if (status != 2)
        CHECK_EQ_INT(status, 0);
    CHECK(chmod(input_path, 0700) == 0);
    CHECK_EQ_INT(omendb_open(input_path, NULL, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(files_are_for_their_owner_only)
{
    struct stat facts;
    char path[4400];
    CHECK(input_begin("modes"));
    CHECK_EQ_INT(input_end(), OMENDB_OK);
    CHECK(stat(input_path, &facts) == 0);
    CHECK_EQ_INT(facts.st_mode & 0777, 0700);
    CHECK(input_find_file("MANIFEST-", path, sizeof path));
    CHECK(stat(path, &facts) == 0);
    CHECK_EQ_INT(facts.st_mode & 0777, 0600);
}

/* Puts until the disk is full; returns the code. *last: the newest that was acknowledged. */
static int input_fill(omendb_collection *collection, uint64_t *last)
{
    float vectors[64 * INPUT_DIM];
    uint64_t ids[64];
    for (uint64_t round = 0; round < 100000; round++) {
        for (uint64_t i = 0; i < 64; i++) {
            ids[i] = round * 64 + i;
            support_vector(ids[i], INPUT_DIM, vectors + i * INPUT_DIM);
        }
        const int status = omendb_add_batch(collection, NULL, 64, ids, vectors, OMENDB_F32, NULL);
        if (status != OMENDB_OK)
            return status;
        *last = ids[63];
    }
    return OMENDB_OK;
}

TEST(a_full_disk_is_named_and_reading_and_deleting_go_on)
{
    struct crash_fs *fs = crash_fs_create(0);
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    const omendb_schema schema = input_schema(OMENDB_L2, OMENDB_F32);
    float vector[INPUT_DIM];
    uint64_t last = 0, count = 0;
    options.vfs = &fs->vfs;
    options.threads = 0;
    options.wal_limit = 32 * 1024;
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "c", &schema, &collection), OMENDB_OK);
    crash_faults_begin(fs, CRASH_CALL_WRITE | CRASH_CALL_SPACE, 60, 1, OMENDB_FULL, ENOSPC);
    CHECK(input_is(input_fill(collection, &last), OMENDB_FULL, ""));
    CHECK(last > 0);
    CHECK_EQ_INT(omendb_get(collection, NULL, last, OMENDB_F32, vector), OMENDB_OK);
    CHECK_EQ_INT(omendb_count(collection, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, last + 1);
    crash_faults_begin(fs, 0, 0, 0, 0, 0);
    CHECK_EQ_INT(support_put(collection, NULL, 7777777, 1, INPUT_DIM), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(db, "c", NULL, &collection), OMENDB_OK);
    CHECK_EQ_INT(omendb_count(collection, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, last + 2);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(fs);
}

TEST(a_write_through_a_read_only_handle_is_refused)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_txn *txn = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    const omendb_schema schema = input_schema(OMENDB_L2, OMENDB_F32);
    CHECK(input_begin("readonly"));
    CHECK_EQ_INT(input_end(), OMENDB_OK);
    options.read_only = 1;
    CHECK_EQ_INT(omendb_open(input_path, &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(db, "l2", NULL, &collection), OMENDB_OK);
    CHECK(input_is(support_put(collection, NULL, 1, 1, INPUT_DIM), OMENDB_READONLY, ""));
    CHECK(input_is(omendb_delete(collection, NULL, 1), OMENDB_READONLY, ""));
    CHECK(input_is(omendb_collection_drop(db, "l2"), OMENDB_READONLY, ""));
    CHECK(input_is(omendb_checkpoint(db), OMENDB_READONLY, ""));
    CHECK(input_is(omendb_optimize(db, NULL, NULL), OMENDB_READONLY, ""));
    CHECK(input_is(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_READONLY, ""));
    omendb_collection_close(collection);
    CHECK(input_is(omendb_collection_create(db, "new", &schema, &collection), OMENDB_READONLY, ""));
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(a_search_gives_up_when_its_time_is_over)
{
    enum { ROWS = 20000, QUERIES = 200, DIM = 32 };
    static float vectors[ROWS * DIM];
    static uint64_t ids[QUERIES * 10];
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb *db;
    omendb_collection *collection;
    size_t count;
    schema.dim = DIM;
    for (uint64_t i = 0; i < ROWS; i++)
        support_vector(i, DIM, vectors + i * DIM);
    CHECK_EQ_INT(omendb_open(":memory:", NULL, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "c", &schema, &collection), OMENDB_OK);
    CHECK_EQ_INT(omendb_add_batch(collection, NULL, ROWS, NULL, vectors, OMENDB_F32, NULL),
                 OMENDB_OK);
    query.exact = 1;
    query.timeout_us = 1;
    query.vector = vectors;
    CHECK_EQ_INT(omendb_search(collection, NULL, &query, ids, NULL, &count), OMENDB_TIMEOUT);
    CHECK_EQ_INT(count, 0);
    CHECK(strstr(omendb_errmsg(), "timeout_us") != NULL);
    query.timeout_us = 500;
    CHECK_EQ_INT(omendb_search_batch(collection, NULL, &query, vectors, QUERIES, ids, NULL, NULL),
                 OMENDB_TIMEOUT);
    query.timeout_us = UINT64_MAX;
    CHECK_EQ_INT(omendb_search(collection, NULL, &query, ids, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 10);
    query.timeout_us = 0;
    CHECK_EQ_INT(omendb_search_batch(collection, NULL, &query, vectors, QUERIES, ids, NULL, NULL),
                 OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST_MAIN(a_search_gives_up_when_its_time_is_over, vectors_that_are_no_vectors_are_refused,
          a_batch_with_one_bad_row_changes_nothing_and_names_the_row,
          ids_that_are_taken_or_absent_are_named, a_query_without_sense_is_refused,
          null_where_none_is_allowed_is_misuse, wrong_use_of_transactions_is_refused,
          a_cursor_of_an_ended_transaction_is_refused, a_row_is_named_only_in_batches,
          metrics_and_types_are_called_by_their_names, what_is_still_open_is_counted,
          the_first_to_commit_wins_and_the_other_is_told,
          a_cursor_shows_the_state_that_it_was_opened_at, structs_of_other_sizes_are_told_apart,
          init_functions_give_what_the_macros_give, options_that_make_no_sense_are_refused,
          ids_beyond_the_last_automatic_one_are_full,
          the_smallest_memory_limit_is_enough_to_close_reopen_and_check,
          writers_that_do_the_work_go_on_under_a_memory_limit,
          writers_go_on_under_a_memory_limit_kept_in_the_background,
          a_backup_to_no_directory_is_refused, a_backup_into_the_database_itself_is_refused,
          a_backup_takes_little_memory_whatever_is_copied,
          schemas_and_names_that_make_no_sense_are_refused, paths_that_are_no_databases_are_refused,
          foreign_truncated_and_missing_files_are_named, no_permission_is_named,
          files_are_for_their_owner_only, a_full_disk_is_named_and_reading_and_deleting_go_on,
          a_write_through_a_read_only_handle_is_refused)
