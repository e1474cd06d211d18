/* test_search_in_transactions.c: a search in a writing transaction sees what the transaction sees,
 * and neither its effort, its memory nor its patience follows from how much that wrote; nor does a
 * search leave more memory behind than the next one is likely to use. */
#include "internals.h"

#include "support.h"
#include "test.h"

#include <time.h>

#define DIM  4
#define ROWS 3000
#define MOST 60000

static omendb *db;
static omendb_collection *rows, *others;
static uint64_t ids[MOST], found[MOST];
static float vectors[MOST * DIM], distances[MOST];

/* A clock that moves on by a microsecond at each look. */
static uint64_t ticks;

static uint64_t tick(void *context)
{
    (void)context;
    return ++ticks;
}

static void close_all(void)
{
    omendb_collection_close(rows);
    omendb_collection_close(others);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* Two collections, nothing in them, and nobody in the background. */
static void open_all(const omendb_vfs *vfs)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.threads = 0;
    options.vfs = vfs;
    options.sync = OMENDB_SYNC_OFF;
    schema.dim = DIM;
    schema.ef = 24;
    CHECK_EQ_INT(omendb_open(support_path("own"), &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "rows", &schema, &rows), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "others", &schema, &others), OMENDB_OK);
}

/* ids first .. first + count - 1, whose vectors `salt` determines */
static int add(omendb_collection *collection, omendb_txn *txn, uint64_t first, size_t count,
               uint64_t salt)
{
    for (size_t i = 0; i < count; i++) {
        ids[i] = first + i;
        support_vector(support_mix(salt + first + i), DIM, vectors + i * DIM);
    }
    return omendb_put_batch(collection, txn, count, ids, vectors, OMENDB_F32, NULL);
}

/* ROWS records in one graph. */
static void open_filled(void)
{
    open_all(NULL);
    CHECK_EQ_INT(add(rows, NULL, 1, ROWS, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
}

static int search(omendb_txn *txn, uint64_t salt, size_t k, int exact, size_t *count,
                  omendb_explain *explain)
{
    float vector[DIM];
    omendb_query query = OMENDB_QUERY_INIT;
    support_vector(support_mix(salt), DIM, vector);
    query.vector = vector;
    query.k = k;
    query.exact = (uint32_t)exact;
    query.explain = explain;
    return omendb_search(rows, txn, &query, found, distances, count);
}

TEST(writes_elsewhere_and_new_records_do_not_widen_a_search)
{
    omendb_explain before = OMENDB_EXPLAIN_INIT, after = OMENDB_EXPLAIN_INIT;
    omendb_txn *txn;
    size_t count;
    open_filled();
    CHECK_EQ_INT(search(NULL, 7, 10, 0, &count, &before), OMENDB_OK);
    CHECK_EQ_INT(before.ef, 24);
    CHECK_EQ_INT(before.graph_rows, ROWS);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(add(others, txn, 1, 5000, 0), OMENDB_OK);
    CHECK_EQ_INT(add(rows, txn, ROWS + 1, 5000, 0), OMENDB_OK);
    CHECK_EQ_INT(search(txn, 7, 10, 0, &count, &after), OMENDB_OK);
    CHECK_EQ_INT(count, 10);
    CHECK_EQ_INT(after.ef, before.ef);
    CHECK_EQ_INT(after.graph_rows, before.graph_rows);
    CHECK_EQ_INT(after.distances, before.distances + 5000);
    CHECK(db->scratch[0] != NULL && db->scratch[0]->found_capacity < 1000);
    omendb_txn_rollback(txn);
    close_all();
}

/* The hits of a transaction are those of the same records committed. */
static void compare_with_committed(omendb_txn *txn)
{
    static uint64_t own_ids[20][100];
    static float own_distances[20][100];
    size_t own_counts[20], count;
    for (uint64_t i = 0; i < 20; i++) {
        CHECK_EQ_INT(search(txn, i, i < 10 ? 10 : 100, 1, &own_counts[i], NULL), OMENDB_OK);
        memcpy(own_ids[i], found, own_counts[i] * sizeof *found);
        memcpy(own_distances[i], distances, own_counts[i] * sizeof *distances);
    }
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    for (uint64_t i = 0; i < 20; i++) {
        CHECK_EQ_INT(search(NULL, i, i < 10 ? 10 : 100, 1, &count, NULL), OMENDB_OK);
        CHECK_EQ_INT(count, own_counts[i]);
        CHECK(memcmp(own_ids[i], found, count * sizeof *found) == 0);
        CHECK(memcmp(own_distances[i], distances, count * sizeof *distances) == 0);
    }
}

/* Deletes the first of the records, replaces as many after them, adds some, and searches. */
static void search_among_changes(size_t changes)
{
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    omendb_txn *txn;
    size_t count, deleted;
    open_filled();
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (size_t i = 0; i < changes; i++)
        ids[i] = i + 1;
    CHECK_EQ_INT(omendb_delete_batch(rows, txn, changes, ids, &deleted), OMENDB_OK);
    CHECK_EQ_INT(deleted, changes);
    CHECK_EQ_INT(add(rows, txn, changes + 1, changes, 12345), OMENDB_OK);
    CHECK_EQ_INT(add(rows, txn, ROWS + 1, 700, 0), OMENDB_OK);
    for (uint64_t i = 0; i < 50; i++) {
        CHECK_EQ_INT(search(txn, i, 10, 0, &count, &explain), OMENDB_OK);
        CHECK_EQ_INT(count, 10);
        CHECK_EQ_INT(explain.graph_rows, ROWS);
        CHECK(explain.ef <= 24 + 64);
        for (size_t j = 0; j < count; j++)
            CHECK(found[j] > changes);
    }
    compare_with_committed(txn);
    close_all();
}

TEST(few_stored_rows_that_the_transaction_changed_are_left_out)
{
    search_among_changes(8);
}

TEST(many_stored_rows_that_the_transaction_changed_are_hidden_from_the_walk)
{
    search_among_changes(600);
}

TEST(a_transaction_that_deleted_nearly_all_finds_the_rest)
{
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    omendb_txn *txn;
    size_t count;
    open_filled();
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (size_t i = 0; i < ROWS - 5; i++)
        ids[i] = i + 1;
    CHECK_EQ_INT(omendb_delete_batch(rows, txn, ROWS - 5, ids, NULL), OMENDB_OK);
    CHECK_EQ_INT(search(txn, 3, 10, 0, &count, &explain), OMENDB_OK);
    CHECK_EQ_INT(count, 5);
    CHECK_EQ_INT(explain.graph_rows, 0); /* a walk would meet only hidden rows */
    for (size_t i = 0; i < count; i++)
        CHECK(found[i] > ROWS - 5);
    omendb_txn_rollback(txn);
    close_all();
}

TEST(the_own_records_are_compared_within_the_timeout)
{
    omendb_vfs vfs = *omendb_default_vfs();
    omendb_query query = OMENDB_QUERY_INIT;
    float vector[DIM] = {1};
    omendb_txn *txn;
    size_t count;
    vfs.now_us = tick;
    open_all(&vfs);
    query.vector = vector;
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(add(rows, txn, 1, 60000, 0), OMENDB_OK);
    query.timeout_us = 8;
    CHECK_EQ_INT(omendb_search(rows, txn, &query, found, NULL, &count), OMENDB_TIMEOUT);
    query.timeout_us = 1000;
    CHECK_EQ_INT(omendb_search(rows, txn, &query, found, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 10);
    omendb_txn_rollback(txn);
    close_all();
}

static uint64_t used_bytes(void)
{
    return atomic_load(&db->memory.used);
}

TEST(a_search_for_very_many_leaves_no_large_scratch)
{
    const size_t many = 50000;
    size_t count;
    uint64_t before;
    open_all(NULL);
    CHECK_EQ_INT(add(rows, NULL, 1, many, 0), OMENDB_OK);
    CHECK_EQ_INT(search(NULL, 1, 10, 1, &count, NULL), OMENDB_OK);
    before = used_bytes();
    CHECK_EQ_INT(search(NULL, 1, many, 1, &count, NULL), OMENDB_OK);
    CHECK_EQ_INT(count, many);
    CHECK(used_bytes() <= before + (1 << 20));
    CHECK_EQ_INT(search(NULL, 1, 10, 1, &count, NULL), OMENDB_OK);
    CHECK_EQ_INT(count, 10);
    close_all();
}

TEST(idle_scratches_can_be_dropped)
{
    size_t count;
    uint64_t before;
    open_filled();
    before = used_bytes();
    scratch_drop_idle(db);
    for (size_t i = 0; i < DATABASE_SCRATCH_SLOTS; i++)
        CHECK(atomic_load(&db->scratch[i]) == NULL);
    CHECK(used_bytes() < before);
    CHECK_EQ_INT(search(NULL, 1, 10, 0, &count, NULL), OMENDB_OK);
    CHECK_EQ_INT(count, 10);
    close_all();
}

/* Processor time of one exact search for all of `count` copies of one vector. */
static double time_of_copies(size_t count, int descending)
{
    omendb_query query = OMENDB_QUERY_INIT;
    const float vector[DIM] = {1};
    size_t hits = 0;
    clock_t start;
    open_all(NULL);
    for (size_t i = 0; i < count; i++) {
        ids[i] = descending ? count - i : i + 1;
        memcpy(vectors + i * DIM, vector, sizeof vector);
    }
    if (omendb_put_batch(rows, NULL, count, ids, vectors, OMENDB_F32, NULL) != OMENDB_OK)
        return -1;
    query.vector = vector;
    query.k = count;
    query.exact = 1;
    start = clock();
    if (omendb_search(rows, NULL, &query, found, NULL, &hits) != OMENDB_OK || hits != count)
        return -1;
    start = clock() - start;
    for (size_t i = 0; i < count; i++)
        if (found[i] != i + 1)
            return -1;
    close_all();
    return (double)start / CLOCKS_PER_SEC;
}

TEST(copies_whose_ids_descend_are_ordered_about_as_fast_as_others)
{
    const double ascending = time_of_copies(MOST, 0), descending = time_of_copies(MOST, 1);
    CHECK(ascending >= 0 && descending >= 0);
    CHECK(descending <= 20 * ascending + 0.05);
}

TEST(a_walk_that_gave_way_to_a_scan_is_told_with_its_effort)
{
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    size_t count;
    open_filled();
    for (size_t i = 0; i < ROWS - 20; i++)
        ids[i] = i + 1;
    CHECK_EQ_INT(omendb_delete_batch(rows, NULL, ROWS - 20, ids, NULL), OMENDB_OK);
    CHECK_EQ_INT(search(NULL, 3, 30, 0, &count, &explain), OMENDB_OK);
    CHECK_EQ_INT(count, 20);
    CHECK_EQ_INT(explain.graph_rows, ROWS);
    CHECK_EQ_INT(explain.scanned_rows, ROWS);
    CHECK_EQ_INT(explain.ef, 30);
    CHECK(explain.recall == 1.0f);
    CHECK_EQ_INT(explain.warnings, 0);
    close_all();
}

TEST_MAIN(writes_elsewhere_and_new_records_do_not_widen_a_search,
          few_stored_rows_that_the_transaction_changed_are_left_out,
          many_stored_rows_that_the_transaction_changed_are_hidden_from_the_walk,
          a_transaction_that_deleted_nearly_all_finds_the_rest,
          the_own_records_are_compared_within_the_timeout,
          a_search_for_very_many_leaves_no_large_scratch, idle_scratches_can_be_dropped,
          copies_whose_ids_descend_are_ordered_about_as_fast_as_others,

          a_walk_that_gave_way_to_a_scan_is_told_with_its_effort)
