/* test_equal_distances.c: of records at one distance a search gives those with the lowest ids,
 * wherever they are stored and in which order they came: merging changes no exact answer. */
#define _POSIX_C_SOURCE 200809L

#include "support.h"
#include "test.h"

#define DIM    8
#define NEARER 6 /* records that are nearer than the equal ones */
#define EQUAL  400
#define K      10

static omendb *db;
static omendb_collection *rows;
static uint64_t ids[EQUAL + NEARER];
static float distances[EQUAL + NEARER];

/* Zero, with `first` in front. */
static int put(uint64_t id, float first, omendb_txn *txn)
{
    float vector[DIM] = {first};
    omendb_record record = OMENDB_RECORD_INIT;
    record.id = id;
    record.vector = vector;
    return omendb_put(rows, txn, &record, NULL);
}

static void open_empty(void)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.threads = 1;
    schema.dim = DIM;
    CHECK_EQ_INT(omendb_open(":memory:", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "rows", &schema, &rows), OMENDB_OK);
}

static void close_all(void)
{
    omendb_collection_close(rows);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* The i-th of `count` ids in an order that neither rises nor falls, from 1,000 on. */
static uint64_t shuffled(uint64_t i, uint64_t count)
{
    return 1000 + i * 173 % count;
}

/* Far ones, which are many, the equal ones, and the nearer ones last and with the highest ids. A
 * part of each lies in another segment, the rest in memory. */
static void open_with_equal(uint64_t equal)
{
    open_empty();
    for (uint64_t i = 0; i < 3 * equal; i++) {
        if (i == equal || i == 2 * equal)
            CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
        if (i % 3 == 0)
            CHECK_EQ_INT(put(shuffled(i / 3, equal), 5.0f, NULL), OMENDB_OK);
        else
            CHECK_EQ_INT(put(20000 - i, 50.0f + (float)i, NULL), OMENDB_OK);
    }
    for (uint64_t i = 0; i < NEARER; i++)
        CHECK_EQ_INT(put(30000 + i, (float)i / 2.0f, NULL), OMENDB_OK);
}

static void check_found(omendb_txn *txn, uint32_t exact, size_t k, uint64_t lowest)
{
    const float zero[DIM] = {0};
    omendb_query query = OMENDB_QUERY_INIT;
    size_t count = 0;
    query.vector = zero;
    query.k = k;
    query.exact = exact;
    CHECK_EQ_INT(omendb_search(rows, txn, &query, ids, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(count, k);
    for (size_t i = 0; i < k; i++) {
        CHECK_EQ_INT(ids[i], i < NEARER ? 30000 + i : lowest + (i - NEARER));
        CHECK(distances[i] == (i < NEARER ? (float)(i * i) / 4.0f : 25.0f));
    }
}

/* Few equal ones are told apart as they are found, many are looked at once more. */
static void equal_everywhere(uint64_t equal)
{
    omendb_txn *snapshot = NULL, *txn = NULL;
    open_with_equal(equal);
    check_found(NULL, 1, K, 1000);
    check_found(NULL, 1, NEARER + (size_t)equal - 1, 1000);
    check_found(NULL, 1, NEARER + (size_t)equal, 1000);
    check_found(NULL, 1, 1, 1000);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(rows, NULL, 1000), OMENDB_OK);
    check_found(NULL, 1, K, 1001);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(rows, txn, 1001), OMENDB_OK);
    check_found(txn, 1, K, 1002);
    CHECK_EQ_INT(put(1001, 5.0f, txn), OMENDB_OK);
    CHECK_EQ_INT(put(1000, 5.0f, txn), OMENDB_OK);
    check_found(txn, 1, K, 1000);
    omendb_txn_rollback(txn);
    check_found(snapshot, 1, K, 1000);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    check_found(NULL, 1, K, 1001);
    check_found(snapshot, 1, K, 1000);
    check_found(snapshot, 1, NEARER + (size_t)equal - 1, 1000);
    omendb_txn_rollback(snapshot);
    close_all();
}

TEST(few_equal_ones_come_by_id)
{
    equal_everywhere(7);
}
TEST(many_equal_ones_come_by_id)
{
    equal_everywhere(EQUAL);
}

/* What is too small for a walk is compared as in an exact search. */
TEST(small_collections_need_not_ask_for_it)
{
    open_with_equal(60);
    check_found(NULL, 0, K, 1000);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    check_found(NULL, 0, K, 1000);
    close_all();
}

TEST(equal_ones_beside_a_record_come_by_id)
{
    omendb_query query = OMENDB_QUERY_INIT;
    size_t count = 0;
    open_with_equal(EQUAL);
    query.id = 1002;
    query.k = K;
    query.exact = 1;
    for (int round = 0; round < 2; round++) {
        CHECK_EQ_INT(omendb_search(rows, NULL, &query, ids, distances, &count), OMENDB_OK);
        CHECK_EQ_INT(count, K);
        for (size_t i = 0; i < K; i++) {
            CHECK_EQ_INT(ids[i], 1000 + i + (i >= 2));
            CHECK(distances[i] == 0.0f);
        }
        CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    }
    close_all();
}

/* All rows are compared, and none of them twice: the equal ones are behind what was found. */
static void check_looked_once(uint64_t nearer, uint32_t use_radius)
{
    const float zero[DIM] = {0};
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    omendb_query query = OMENDB_QUERY_INIT;
    size_t count = 0;
    query.vector = zero;
    query.k = K;
    query.exact = 1;
    query.explain = &explain;
    query.use_radius = use_radius;
    query.radius = use_radius ? 24.0f : 0.0f;
    CHECK_EQ_INT(omendb_search(rows, NULL, &query, ids, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(count, nearer < K ? nearer : K);
    CHECK_EQ_INT(explain.scanned_rows, EQUAL + nearer);
    CHECK_EQ_INT(explain.distances, EQUAL + nearer);
}

TEST(equal_ones_that_are_no_hits_are_looked_at_once)
{
    open_empty();
    for (uint64_t i = 0; i < EQUAL; i++)
        CHECK_EQ_INT(put(1000 + i, 5.0f, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    check_looked_once(0, 1);
    for (uint64_t i = 0; i < K; i++)
        CHECK_EQ_INT(put(30000 + i, 1.0f, NULL), OMENDB_OK);
    check_looked_once(K, 0);
    close_all();
}

/* With a scale so large that all distances are told as 0. */
TEST(the_nearest_come_first_though_all_are_told_as_equal)
{
    float vector[DIM] = {0};
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_query query = OMENDB_QUERY_INIT;
    size_t count = 0;
    open_empty();
    omendb_collection_close(rows);
    schema.dim = DIM;
    schema.scalar = OMENDB_I8;
    schema.scale = 1e24f;
    CHECK_EQ_INT(omendb_collection_create(db, "tiny", &schema, &rows), OMENDB_OK);
    for (uint64_t i = 0; i < 100; i++)
        CHECK_EQ_INT(put(i, (float)(100 - i) * 1e-24f, NULL), OMENDB_OK);
    query.vector = vector;
    query.exact = 1;
    query.k = 3;
    CHECK_EQ_INT(omendb_search(rows, NULL, &query, ids, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 3);
    for (size_t i = 0; i < count; i++) {
        CHECK(distances[i] == 0.0f);
        CHECK_EQ_INT(ids[i], 97 + i);
    }
    close_all();
}

#define WIDE 1300 /* elements */
#define MANY 200

/* Their squares, of stored elements, are just below 2^24 and differ by one each; in the units of
 * the vectors they are just above 2^10, where a float tells only every second of them apart. The
 * farther ones have the lower ids. */
static void put_wide(void)
{
    static float vector[WIDE];
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_record record = OMENDB_RECORD_INIT;
    schema.dim = WIDE;
    schema.scalar = OMENDB_I8;
    schema.scale = 127.5f;
    omendb_collection_close(rows);
    CHECK_EQ_INT(omendb_collection_create(db, "wide", &schema, &rows), OMENDB_OK);
    record.vector = vector;
    for (size_t i = 0; i < 1035; i++)
        vector[i] = 1.0f;
    for (uint64_t id = MANY; id-- > 0;) {
        record.id = id;
        CHECK_EQ_INT(omendb_put(rows, NULL, &record, NULL), OMENDB_OK);
        vector[1299 - id] = 1.0f / 127.5f;
    }
}

TEST(distances_that_are_equal_only_as_told_come_by_id)
{
    static const float zero[WIDE] = {0};
    uint64_t fewer[MANY];
    omendb_query query = OMENDB_QUERY_INIT;
    size_t count = 0, equal = 0;
    open_empty();
    put_wide();
    query.vector = zero;
    query.exact = 1;
    query.k = MANY;
    CHECK_EQ_INT(omendb_search(rows, NULL, &query, ids, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(count, MANY);
    for (size_t i = 1; i < MANY; i++) {
        CHECK(distances[i - 1] < distances[i] || ids[i - 1] < ids[i]);
        equal += distances[i - 1] == distances[i];
    }
    CHECK(equal > MANY / 4);
    for (query.k = 1; query.k < MANY; query.k++) {
        CHECK_EQ_INT(omendb_search(rows, NULL, &query, fewer, NULL, &count), OMENDB_OK);
        CHECK_EQ_INT(count, query.k);
        CHECK(memcmp(fewer, ids, count * sizeof *ids) == 0);
    }
    close_all();
}

TEST_MAIN(few_equal_ones_come_by_id, many_equal_ones_come_by_id,
          small_collections_need_not_ask_for_it, equal_ones_beside_a_record_come_by_id,
          equal_ones_that_are_no_hits_are_looked_at_once,
          the_nearest_come_first_though_all_are_told_as_equal,
          distances_that_are_equal_only_as_told_come_by_id)
