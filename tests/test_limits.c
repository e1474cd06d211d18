/* test_limits.c: what a collection may hold and how often it may be used is kept, whole or not at
 * all, over restarts, and never at the cost of another collection; what is used is counted. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdatomic.h>

#include "support.h"
#include "test.h"

#define DIM          8
#define MANY         6000
#define RECORD_BYTES (DIM * sizeof(float) + 8)

static omendb *db;
static omendb_collection *tenant, *other;
static char path[4096];
static _Atomic uint64_t now_us = 5000000;

static uint64_t told_time(void *context)
{
    (void)context;
    return atomic_load(&now_us);
}

static void pass_ms(uint64_t ms)
{
    atomic_fetch_add(&now_us, ms * 1000);
}

static int open_with(uint32_t read_only, int io)
{
    static omendb_vfs vfs;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = DIM;
    vfs = *omendb_default_vfs();
    vfs.now_us = told_time;
    options.vfs = &vfs;
    options.threads = 0;
    options.read_only = read_only;
    options.io = (uint32_t)io;
    int status = omendb_open(path, &options, &db);
    if (status == OMENDB_OK)
        status = read_only ? omendb_collection_open(db, "tenant", NULL, &tenant)
                           : omendb_collection_open_or_create(db, "tenant", &schema, &tenant);
    if (status == OMENDB_OK)
        status = read_only ? omendb_collection_open(db, "other", NULL, &other)
                           : omendb_collection_open_or_create(db, "other", &schema, &other);
    return status;
}

static int close_all(void)
{
    omendb_collection_close(tenant);
    omendb_collection_close(other);
    tenant = other = NULL;
    return omendb_close(db);
}

static int open_again(void)
{
    const int status = close_all();
    return status == OMENDB_OK ? open_with(0, OMENDB_IO_MAP) : status;
}

static int open_new(const char *name)
{
    snprintf(path, sizeof path, "%s", support_path(name));
    return open_with(0, OMENDB_IO_MAP);
}

static int limit(uint64_t records, uint64_t bytes, uint64_t queries, uint64_t writes)
{
    omendb_limits limits = OMENDB_LIMITS_INIT;
    limits.records = records;
    limits.bytes = bytes;
    limits.queries_per_second = queries;
    limits.writes_per_second = writes;
    return omendb_collection_set_limits(tenant, &limits);
}

static int put_with(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                    const char *metadata)
{
    float vector[DIM];
    omendb_record record = OMENDB_RECORD_INIT;
    support_vector(id + 1, DIM, vector);
    record.id = id;
    record.vector = vector;
    record.metadata = metadata;
    return omendb_put(collection, txn, &record, NULL);
}

static int put(omendb_collection *collection, omendb_txn *txn, uint64_t id)
{
    return put_with(collection, txn, id, NULL);
}

static int put_batch(uint64_t first, size_t count)
{
    static float vectors[MANY * DIM];
    static uint64_t ids[MANY];
    for (size_t i = 0; i < count; i++) {
        ids[i] = first + i;
        support_vector(first + i + 1, DIM, vectors + i * DIM);
    }
    return omendb_put_batch(tenant, NULL, count, ids, vectors, OMENDB_F32, NULL);
}

static uint64_t count_of(omendb_collection *collection)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    return omendb_collection_get_stats(collection, &stats) == OMENDB_OK ? stats.records
                                                                        : UINT64_MAX;
}

static omendb_collection_stats stats_of(omendb_collection *collection)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    (void)omendb_collection_get_stats(collection, &stats);
    return stats;
}

static int search(size_t count)
{
    float vectors[16 * DIM];
    uint64_t ids[16];
    size_t found;
    omendb_query query = OMENDB_QUERY_INIT;
    for (size_t i = 0; i < count; i++)
        support_vector(i + 1, DIM, vectors + i * DIM);
    query.vector = vectors;
    query.k = 1;
    return count == 1 ? omendb_search(tenant, NULL, &query, ids, NULL, &found)
                      : omendb_search_batch(tenant, NULL, &query, vectors, count, ids, NULL, NULL);
}

TEST(records_beyond_the_limit_are_refused_whole)
{
    CHECK_EQ_INT(open_new("records"), OMENDB_OK);
    CHECK_EQ_INT(limit(10, 0, 0, 0), OMENDB_OK);
    CHECK_EQ_INT(put_batch(0, 8), OMENDB_OK);
    CHECK_EQ_INT(put_batch(8, 3), OMENDB_QUOTA);
    CHECK(strstr(omendb_errmsg(), "may hold 10 records; it holds 8, and this would add 3") != NULL);
    CHECK_EQ_INT(count_of(tenant), 8);
    CHECK_EQ_INT(put_batch(6, 4), OMENDB_OK); /* two are replaced */
    CHECK_EQ_INT(put(tenant, NULL, 10), OMENDB_QUOTA);
    CHECK_EQ_INT(put(tenant, NULL, 9), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(tenant, NULL, 3), OMENDB_OK);
    CHECK_EQ_INT(put(tenant, NULL, 10), OMENDB_OK);
    CHECK_EQ_INT(count_of(tenant), 10);
    CHECK_EQ_INT(stats_of(tenant).writes_refused, 4);
    CHECK_EQ_INT(stats_of(tenant).writes, 8 + 4 + 1 + 1 + 1);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(bytes_are_vectors_ids_and_documents_and_come_back)
{
    CHECK_EQ_INT(open_new("bytes"), OMENDB_OK);
    CHECK_EQ_INT(put(tenant, NULL, 1), OMENDB_OK);
    CHECK_EQ_INT(stats_of(tenant).bytes, RECORD_BYTES);
    CHECK_EQ_INT(put_with(tenant, NULL, 1, "{\"a\":1}"), OMENDB_OK);
    CHECK_EQ_INT(stats_of(tenant).bytes, RECORD_BYTES + 32); /* 8 + 12 + 1 + 8, rounded up */
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(tenant, NULL, 1, "{\"text\":\"longer than before\"}"), OMENDB_OK);
    const uint64_t longer = stats_of(tenant).bytes;
    CHECK(longer > RECORD_BYTES + 48);
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    CHECK_EQ_INT(stats_of(tenant).bytes, longer);
    CHECK_EQ_INT(limit(0, longer + RECORD_BYTES, 0, 0), OMENDB_OK);
    CHECK_EQ_INT(put_with(tenant, NULL, 2, "{\"a\":1}"), OMENDB_QUOTA);
    CHECK(strstr(omendb_errmsg(), " bytes; it holds ") != NULL);
    CHECK_EQ_INT(put(tenant, NULL, 2), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(tenant, NULL, 2, "{\"a\":1}"), OMENDB_QUOTA);
    CHECK_EQ_INT(omendb_update(tenant, NULL, 1, "{\"text\":null}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(tenant, NULL, 2, "{\"a\":1}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(tenant, NULL, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(tenant, NULL, 2), OMENDB_OK);
    CHECK_EQ_INT(stats_of(tenant).bytes, 0);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(what_does_not_grow_passes_below_any_limit)
{
    CHECK_EQ_INT(open_new("lowered"), OMENDB_OK);
    CHECK_EQ_INT(put_batch(0, 20), OMENDB_OK);
    CHECK_EQ_INT(limit(5, 1, 0, 0), OMENDB_OK);
    CHECK_EQ_INT(put(tenant, NULL, 3), OMENDB_OK);
    CHECK_EQ_INT(put(tenant, NULL, 20), OMENDB_QUOTA);
    omendb_txn *txn;
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(tenant, txn, 0), OMENDB_OK);
    CHECK_EQ_INT(put(tenant, txn, 20), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(tenant, NULL, 20), OMENDB_OK);
    CHECK_EQ_INT(count_of(tenant), 19);
    CHECK_EQ_INT(omendb_collection_set_limits(tenant, NULL), OMENDB_OK);
    CHECK_EQ_INT(put_batch(100, 20), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(a_transaction_is_refused_as_a_whole_at_its_commit)
{
    omendb_txn *txn;
    CHECK_EQ_INT(open_new("transaction"), OMENDB_OK);
    CHECK_EQ_INT(limit(2, 0, 0, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (uint64_t id = 0; id < 3; id++) {
        CHECK_EQ_INT(put(tenant, txn, id), OMENDB_OK);
        CHECK_EQ_INT(put(other, txn, id), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_QUOTA);
    CHECK_EQ_INT(count_of(tenant), 0);
    CHECK_EQ_INT(count_of(other), 0);
    CHECK_EQ_INT(put_batch(0, 2), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

static int prepare(const char *name, uint64_t first, uint64_t end, uint64_t deleted)
{
    omendb_txn *txn;
    int status = omendb_txn_begin(db, OMENDB_READ_WRITE, &txn);
    if (status == OMENDB_OK && deleted != OMENDB_ID_AUTO)
        status = omendb_delete(tenant, txn, deleted);
    for (uint64_t id = first; id < end && status == OMENDB_OK; id++)
        status = put_with(tenant, txn, id, "{\"a\":1}");
    return status == OMENDB_OK ? omendb_txn_prepare(txn, name) : status;
}

TEST(what_is_prepared_has_its_room_reserved_over_a_restart)
{
    CHECK_EQ_INT(open_new("prepared"), OMENDB_OK);
    CHECK_EQ_INT(limit(10, 0, 0, 0), OMENDB_OK);
    CHECK_EQ_INT(put_batch(0, 4), OMENDB_OK);
    CHECK_EQ_INT(prepare("much", 10, 17, OMENDB_ID_AUTO), OMENDB_QUOTA);
    CHECK_EQ_INT(prepare("some", 10, 16, 3), OMENDB_OK); /* 5 more */
    for (int times = 0; times < 3; times++) {
        CHECK_EQ_INT(put_batch(20, 2), OMENDB_QUOTA);
        CHECK(strstr(omendb_errmsg(), "prepared transactions wait with 5") != NULL);
        if (times == 1)
            CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
        CHECK_EQ_INT(open_again(), OMENDB_OK);
    }
    CHECK_EQ_INT(put_batch(20, 1), OMENDB_OK);
    CHECK_EQ_INT(limit(1, 1, 1, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_commit_prepared(db, "some"), OMENDB_OK);
    CHECK_EQ_INT(count_of(tenant), 10);
    CHECK_EQ_INT(limit(11, 0, 0, 0), OMENDB_OK);
    CHECK_EQ_INT(prepare("more", 30, 31, OMENDB_ID_AUTO), OMENDB_OK);
    CHECK_EQ_INT(put(tenant, NULL, 40), OMENDB_QUOTA);
    CHECK_EQ_INT(omendb_rollback_prepared(db, "more"), OMENDB_OK);
    CHECK_EQ_INT(put(tenant, NULL, 40), OMENDB_OK);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(queries_come_back_evenly_and_a_batch_is_all_or_none)
{
    CHECK_EQ_INT(open_new("queries"), OMENDB_OK);
    CHECK_EQ_INT(put_batch(0, 10), OMENDB_OK);
    CHECK_EQ_INT(limit(0, 0, 10, 0), OMENDB_OK);
    CHECK_EQ_INT(search(6), OMENDB_OK);
    CHECK_EQ_INT(search(5), OMENDB_QUOTA);
    CHECK(strstr(omendb_errmsg(), "allows 10 queries a second; 5 more must wait: try again in "
                                  "100 ms") != NULL);
    for (int i = 0; i < 4; i++)
        CHECK_EQ_INT(search(1), OMENDB_OK);
    CHECK_EQ_INT(search(1), OMENDB_QUOTA);
    pass_ms(99);
    CHECK_EQ_INT(search(1), OMENDB_QUOTA);
    CHECK(strstr(omendb_errmsg(), "again in 1 ms") != NULL);
    pass_ms(1);
    CHECK_EQ_INT(search(1), OMENDB_OK);
    CHECK_EQ_INT(search(1), OMENDB_QUOTA);
    pass_ms(60000); /* no more than a second is kept */
    CHECK_EQ_INT(search(10), OMENDB_OK);
    CHECK_EQ_INT(search(1), OMENDB_QUOTA);
    CHECK_EQ_INT(stats_of(tenant).queries, 6 + 4 + 1 + 10);
    CHECK_EQ_INT(stats_of(tenant).queries_refused, 5 + 1 + 1 + 1 + 1);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(a_batch_beyond_the_rate_passes_when_rested_and_is_paid_for)
{
    CHECK_EQ_INT(open_new("debt"), OMENDB_OK);
    CHECK_EQ_INT(limit(0, 0, 4, 10), OMENDB_OK);
    CHECK_EQ_INT(put_batch(0, 30), OMENDB_OK);
    CHECK_EQ_INT(put_batch(30, 1), OMENDB_QUOTA);
    CHECK(strstr(omendb_errmsg(), "again in 2100 ms") != NULL);
    pass_ms(2100);
    CHECK_EQ_INT(put_batch(30, 1), OMENDB_OK);
    CHECK_EQ_INT(put_batch(31, 30), OMENDB_QUOTA);
    CHECK_EQ_INT(count_of(tenant), 31);
    pass_ms(1000);
    CHECK_EQ_INT(put_batch(31, 30), OMENDB_OK);
    CHECK_EQ_INT(search(16), OMENDB_OK);
    pass_ms(3000);
    CHECK_EQ_INT(search(1), OMENDB_QUOTA);
    pass_ms(250);
    CHECK_EQ_INT(search(1), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

/* The tail is over its limit, so that a writer links it before it writes. */
TEST(a_write_that_its_rate_refuses_does_no_work_for_others)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    uint64_t unindexed;
    CHECK_EQ_INT(open_new("idle"), OMENDB_OK);
    CHECK_EQ_INT(limit(0, 0, 0, 10), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    options.threads = 0;
    options.tail_limit = 20000;
    CHECK_EQ_INT(omendb_open(path, &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(db, "tenant", NULL, &tenant), OMENDB_OK);
    CHECK_EQ_INT(put_batch(0, 3000), OMENDB_OK);
    unindexed = stats_of(tenant).unindexed_rows;
    CHECK(unindexed * DIM * sizeof(float) > options.tail_limit);
    CHECK_EQ_INT(put(tenant, NULL, 3000), OMENDB_QUOTA);
    CHECK_EQ_INT(omendb_update(tenant, NULL, 1, "{\"a\":1}"), OMENDB_QUOTA);
    CHECK_EQ_INT(stats_of(tenant).unindexed_rows, unindexed);
    CHECK_EQ_INT(stats_of(tenant).writes_refused, 2);
    CHECK_EQ_INT(limit(0, 0, 0, 0), OMENDB_OK);
    CHECK_EQ_INT(put(tenant, NULL, 3000), OMENDB_OK);
    CHECK(stats_of(tenant).unindexed_rows < unindexed);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

static _Atomic int passed_queries, passed_writes;

static void *ask_and_write(void *argument)
{
    const uint64_t first = *(const uint64_t *)argument;
    for (uint64_t i = 0; i < 60; i++) {
        uint64_t number;
        const int asked = omendb_count(tenant, NULL, &number), wrote = put(tenant, NULL, first + i);
        atomic_fetch_add(&passed_queries, asked == OMENDB_OK);
        atomic_fetch_add(&passed_writes, wrote == OMENDB_OK);
        if ((asked != OMENDB_OK && asked != OMENDB_QUOTA) ||
            (wrote != OMENDB_OK && wrote != OMENDB_QUOTA))
            atomic_store(&passed_queries, 1000000);
    }
    return NULL;
}

TEST(threads_share_what_is_allowed_exactly)
{
    pthread_t threads[3];
    uint64_t firsts[3] = {0, 1000, 2000};
    CHECK_EQ_INT(open_new("threads"), OMENDB_OK);
    CHECK_EQ_INT(limit(70, 0, 90, 80), OMENDB_OK);
    atomic_store(&passed_queries, 0);
    atomic_store(&passed_writes, 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ_INT(pthread_create(&threads[i], NULL, ask_and_write, &firsts[i]), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ_INT(atomic_load(&passed_queries), 90);
    CHECK_EQ_INT(atomic_load(&passed_writes), 70);
    CHECK_EQ_INT(stats_of(tenant).bytes, 70 * RECORD_BYTES);
    CHECK_EQ_INT(stats_of(tenant).queries, 90);
    CHECK_EQ_INT(stats_of(tenant).queries_refused, 90);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(every_kind_of_query_and_of_write_counts)
{
    uint64_t number;
    size_t deleted;
    const uint64_t ids[2] = {1, 99};
    omendb_rows *rows;
    omendb_filter *filter;
    omendb_txn *txn;
    CHECK_EQ_INT(open_new("kinds"), OMENDB_OK);
    CHECK_EQ_INT(limit(1000, 0, 0, 0), OMENDB_OK);
    CHECK_EQ_INT(put_batch(0, 5), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(tenant, NULL, 1, "{\"a\":1}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete_batch(tenant, NULL, 2, ids, &deleted), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(put(tenant, txn, 7), OMENDB_OK);
    CHECK_EQ_INT(put(tenant, txn, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(tenant, txn, 2), OMENDB_OK);
    CHECK_EQ_INT(stats_of(tenant).writes, 5 + 1 + 1);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(stats_of(tenant).writes, 5 + 1 + 1 + 2);
    CHECK_EQ_INT(stats_of(tenant).queries, 0);
    CHECK_EQ_INT(omendb_count(tenant, NULL, &number), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_compile(db, "_id = 3", &filter), OMENDB_OK);
    CHECK_EQ_INT(omendb_count_matching(tenant, NULL, filter, NULL, NULL, &number), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(tenant, NULL, 0, 10, &rows), OMENDB_OK);
    omendb_rows_close(rows);
    CHECK_EQ_INT(omendb_delete_matching(tenant, NULL, filter, NULL, NULL, &number), OMENDB_OK);
    CHECK_EQ_INT(search(3), OMENDB_OK);
    CHECK_EQ_INT(stats_of(tenant).queries, 4 + 3);
    CHECK_EQ_INT(stats_of(tenant).writes, 9 + 1);
    CHECK_EQ_INT(limit(0, 0, 1, 0), OMENDB_OK);
    CHECK_EQ_INT(search(1), OMENDB_OK);
    CHECK_EQ_INT(omendb_count(tenant, NULL, &number), OMENDB_QUOTA);
    CHECK_EQ_INT(omendb_scan(tenant, NULL, 0, 10, &rows), OMENDB_QUOTA);
    CHECK(rows == NULL);
    CHECK_EQ_INT(omendb_count_matching(tenant, NULL, NULL, NULL, NULL, &number), OMENDB_QUOTA);
    CHECK_EQ_INT(omendb_delete_matching(tenant, NULL, filter, NULL, NULL, &number), OMENDB_QUOTA);
    omendb_filter_free(filter);
    CHECK_EQ_INT(omendb_get(tenant, NULL, 0, OMENDB_F32, NULL), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(pages_facets_and_many_queries_count_too)
{
    omendb_query queries[2] = {OMENDB_QUERY_INIT, OMENDB_QUERY_INIT};
    const float vector[DIM] = {1};
    uint64_t ids[2];
    size_t found;
    omendb_pages *pages;
    omendb_facets *facets;
    CHECK_EQ_INT(open_new("asking"), OMENDB_OK);
    CHECK_EQ_INT(put_batch(0, 5), OMENDB_OK);
    CHECK_EQ_INT(limit(0, 0, 5, 0), OMENDB_OK);
    for (size_t i = 0; i < 2; i++) {
        queries[i].vector = vector;
        queries[i].k = 1;
    }
    CHECK_EQ_INT(omendb_search_many(tenant, NULL, queries, 2, ids, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_facets_open(tenant, NULL, NULL, NULL, NULL, "a", 0, &facets), OMENDB_OK);
    omendb_facets_close(facets);
    CHECK_EQ_INT(omendb_pages_open(tenant, NULL, queries, &pages), OMENDB_OK);
    CHECK_EQ_INT(omendb_pages_next(pages, 1, 0, ids, NULL, &found), OMENDB_OK);
    CHECK_EQ_INT(stats_of(tenant).queries, 2 + 1 + 1);
    CHECK_EQ_INT(omendb_search_many(tenant, NULL, queries, 2, ids, NULL, NULL), OMENDB_QUOTA);
    CHECK_EQ_INT(omendb_pages_next(pages, 1, 0, ids, NULL, &found), OMENDB_OK);
    CHECK_EQ_INT(omendb_pages_next(pages, 1, 0, ids, NULL, &found), OMENDB_QUOTA);
    CHECK_EQ_INT(omendb_facets_open(tenant, NULL, NULL, NULL, NULL, "a", 0, &facets), OMENDB_QUOTA);
    CHECK(facets == NULL);
    omendb_pages_close(pages);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

static int limits_are(uint64_t records, uint64_t bytes, uint64_t queries, uint64_t writes)
{
    omendb_limits limits = OMENDB_LIMITS_INIT;
    return omendb_collection_get_limits(tenant, &limits) == OMENDB_OK &&
           limits.records == records && limits.bytes == bytes &&
           limits.queries_per_second == queries && limits.writes_per_second == writes;
}

TEST(limits_outlive_restarts_backups_and_salvage_and_reach_readers)
{
    char copy[4096], salvaged[4096];
    omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
    CHECK_EQ_INT(open_new("kept"), OMENDB_OK);
    snprintf(copy, sizeof copy, "%s", support_path("kept-copy"));
    snprintf(salvaged, sizeof salvaged, "%s", support_path("kept-salvaged"));
    CHECK(limits_are(0, 0, 0, 0));
    CHECK_EQ_INT(put_batch(0, 30), OMENDB_OK);
    CHECK_EQ_INT(limit(20, 100, 5, 6), OMENDB_OK);
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    CHECK(limits_are(20, 100, 5, 6));
    CHECK_EQ_INT(omendb_backup(db, copy), OMENDB_OK);
    CHECK_EQ_INT(limit(21, 101, 7, 8), OMENDB_OK);
    omendb *writer = db;
    omendb_collection *writer_tenant = tenant, *writer_other = other;
    CHECK_EQ_INT(open_with(1, OMENDB_IO_PREAD), OMENDB_OK);
    CHECK(limits_are(21, 101, 7, 8));
    CHECK_EQ_INT(limit(1, 1, 1, 1), OMENDB_READONLY);
    omendb *reader = db;
    omendb_collection *reader_tenant = tenant, *reader_other = other;
    db = writer, tenant = writer_tenant, other = writer_other;
    CHECK_EQ_INT(limit(22, 0, 0, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(tenant, NULL, 0), OMENDB_OK);
    db = reader, tenant = reader_tenant, other = reader_other;
    CHECK_EQ_INT(omendb_refresh(db), OMENDB_OK);
    CHECK(limits_are(22, 0, 0, 0));
    CHECK_EQ_INT(stats_of(tenant).bytes, 29 * RECORD_BYTES);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    db = writer, tenant = writer_tenant, other = writer_other;
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    CHECK_EQ_INT(omendb_salvage(path, salvaged, NULL, NULL, NULL, &result), OMENDB_OK);
    snprintf(path, sizeof path, "%s", copy);
    CHECK_EQ_INT(open_with(0, OMENDB_IO_MAP), OMENDB_OK);
    CHECK(limits_are(20, 100, 5, 6));
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    snprintf(path, sizeof path, "%s", salvaged);
    CHECK_EQ_INT(open_with(0, OMENDB_IO_MAP), OMENDB_OK);
    CHECK(limits_are(22, 0, 0, 0));
    CHECK_EQ_INT(count_of(tenant), 29);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(limits_of_one_collection_never_touch_another)
{
    uint64_t number;
    CHECK_EQ_INT(open_new("tenants"), OMENDB_OK);
    CHECK_EQ_INT(limit(1, 1, 1, 1), OMENDB_OK);
    for (uint64_t id = 0; id < 50; id++) {
        CHECK_EQ_INT(put_with(other, NULL, id, "{\"a\":1}"), OMENDB_OK);
        CHECK_EQ_INT(omendb_count(other, NULL, &number), OMENDB_OK);
        (void)put(tenant, NULL, id);
        (void)search(1);
    }
    CHECK_EQ_INT(count_of(other), 50);
    CHECK_EQ_INT(stats_of(other).writes, 0); /* it never had limits */
    CHECK_EQ_INT(stats_of(other).bytes, 50 * (RECORD_BYTES + 32));
    CHECK_EQ_INT(count_of(tenant), 0);
    CHECK_EQ_INT(stats_of(tenant).queries, 1);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

static uint64_t reads, failing_read;

static int failing_read_of(void *context, void *file, uint64_t offset, void *buffer, size_t size)
{
    return ++reads == failing_read
               ? OMENDB_IOERR
               : omendb_default_vfs()->read(context, file, offset, buffer, size);
}

/* Of a device that fails for a moment. */
TEST(a_read_that_fails_leaves_the_numbers_exact)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_vfs vfs = *omendb_default_vfs();
    uint64_t failed = 0;
    int status = OMENDB_IOERR;
    CHECK_EQ_INT(open_new("failing"), OMENDB_OK);
    CHECK_EQ_INT(put_batch(0, MANY), OMENDB_OK);
    omendb_txn *txn;
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (uint64_t id = 0; id < MANY; id++)
        CHECK_EQ_INT(omendb_update(tenant, txn, id, "{\"name\":\"some words\"}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    vfs.read = failing_read_of;
    options.vfs = &vfs;
    options.threads = 0;
    options.io = OMENDB_IO_PREAD;
    for (uint64_t at = 1; status != OMENDB_OK; at++) {
        CHECK_EQ_INT(omendb_open(path, &options, &db), OMENDB_OK);
        CHECK_EQ_INT(omendb_collection_open(db, "tenant", NULL, &tenant), OMENDB_OK);
        CHECK_EQ_INT(omendb_collection_open(db, "other", NULL, &other), OMENDB_OK);
        CHECK_EQ_INT(put(other, NULL, 1), OMENDB_OK); /* begins a log, for which much is read */
        reads = 0;
        failing_read = at;
        status = omendb_delete(tenant, NULL, MANY / 2);
        failing_read = 0;
        CHECK(status == OMENDB_OK || status == OMENDB_IOERR);
        failed += status == OMENDB_IOERR;
        CHECK_EQ_INT(support_check(db), OMENDB_OK);
        CHECK_EQ_INT(close_all(), OMENDB_OK);
    }
    CHECK(failed >= 2); /* where the record lies, and how long its document is */
}

TEST(merges_and_drops_leave_the_numbers_exact)
{
    CHECK_EQ_INT(open_new("merges"), OMENDB_OK);
    struct support_random random = {7};
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < 20; i++) {
            const uint64_t id = support_below(&random, 60);
            if (support_below(&random, 3) == 0)
                (void)omendb_delete(tenant, NULL, id);
            else
                CHECK_EQ_INT(put_with(tenant, NULL, id, id % 2 ? "{\"word\":\"abc\"}" : NULL),
                             OMENDB_OK);
        }
        if (round % 3 == 0)
            CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
        if (round % 4 == 3)
            CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
        if (round % 5 == 4)
            CHECK_EQ_INT(open_again(), OMENDB_OK);
        CHECK_EQ_INT(support_check(db), OMENDB_OK);
    }
    omendb_collection_close(tenant);
    CHECK_EQ_INT(omendb_collection_drop(db, "tenant"), OMENDB_OK);
    omendb_collection_close(other);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(open_with(0, OMENDB_IO_MAP), OMENDB_OK);
    CHECK_EQ_INT(stats_of(tenant).bytes, 0);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(wrong_arguments_are_refused)
{
    omendb_limits limits = OMENDB_LIMITS_INIT, zeroed = {0};
    CHECK_EQ_INT(open_new("arguments"), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_set_limits(NULL, &limits), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_collection_set_limits(tenant, &zeroed), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_collection_get_limits(tenant, NULL), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_collection_get_limits(tenant, &zeroed), OMENDB_MISUSE);
    CHECK_EQ_STR(omendb_strerror(OMENDB_QUOTA), "quota");
    CHECK_EQ_INT(omendb_collection_drop(db, "tenant"), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_set_limits(tenant, &limits), OMENDB_DROPPED);
    CHECK_EQ_INT(omendb_collection_get_limits(tenant, &limits), OMENDB_DROPPED);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST_MAIN(records_beyond_the_limit_are_refused_whole,
          bytes_are_vectors_ids_and_documents_and_come_back,
          what_does_not_grow_passes_below_any_limit,
          a_transaction_is_refused_as_a_whole_at_its_commit,
          what_is_prepared_has_its_room_reserved_over_a_restart,
          queries_come_back_evenly_and_a_batch_is_all_or_none,
          a_batch_beyond_the_rate_passes_when_rested_and_is_paid_for,
          a_write_that_its_rate_refuses_does_no_work_for_others,
          threads_share_what_is_allowed_exactly, every_kind_of_query_and_of_write_counts,
          pages_facets_and_many_queries_count_too,
          limits_outlive_restarts_backups_and_salvage_and_reach_readers,
          limits_of_one_collection_never_touch_another, a_read_that_fails_leaves_the_numbers_exact,
          merges_and_drops_leave_the_numbers_exact, wrong_arguments_are_refused)
