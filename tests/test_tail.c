/* test_tail.c: rows that are in no graph. They are compared one by one, so what is near is found
 * among them wherever they lie: beside a graph, in a log that a read-only opener replays. While a
 * collection is searched there are few: writers wait, and checkpoints leave none. */
#define _POSIX_C_SOURCE 200809L
#include "omendb.h"
#include "support.h"
#include "test.h"

#include <stdatomic.h>
#include <time.h>

enum {
    TAIL_DIM = 32,
    TAIL_LINKED = 3000,
    TAIL_ROWS = 3000,
    TAIL_K = 10,
    TAIL_QUERIES = 200,
    TAIL_NOTICED = 64
};

struct tail {
    omendb *db;
    omendb_collection *collection;
};

/* A clock that moves on by a microsecond at each look: "searched a second ago" does not depend on
 * how busy the machine is. */
static _Atomic uint64_t tail_ticks;

static uint64_t tail_tick(void *context)
{
    (void)context;
    return atomic_fetch_add(&tail_ticks, 1) + 1;
}

static const omendb_vfs *tail_vfs(void)
{
    static omendb_vfs vfs;
    vfs = *omendb_default_vfs();
    vfs.now_us = tail_tick;
    return &vfs;
}

static int tail_open(struct tail *tail, const char *path, const omendb_options *options)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    *tail = (struct tail){NULL, NULL};
    schema.dim = TAIL_DIM;
    schema.M = 8;
    schema.ef_construction = 32;
    int code = omendb_open(path, options, &tail->db);
    if (code == OMENDB_OK)
        code = options->read_only
                   ? omendb_collection_open(tail->db, "c", NULL, &tail->collection)
                   : omendb_collection_open_or_create(tail->db, "c", &schema, &tail->collection);
    return code;
}

static int tail_close(struct tail *tail)
{
    omendb_collection_close(tail->collection);
    return omendb_close(tail->db);
}

/* In fractions, which codes round. */
static void tail_vector(uint64_t value, float *vector)
{
    struct support_random random = {value + 1};
    for (uint32_t i = 0; i < TAIL_DIM; i++)
        vector[i] = (float)support_below(&random, 1000003) / 7919.0f;
}

/* Records [first, first + count), of values [first + shift, ...). */
static int tail_put(const struct tail *tail, uint64_t first, uint64_t count, uint64_t shift)
{
    static float vectors[TAIL_ROWS * TAIL_DIM];
    static uint64_t ids[TAIL_ROWS];
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = first + i;
        tail_vector(first + shift + i, vectors + i * TAIL_DIM);
    }
    return omendb_put_batch(tail->collection, NULL, count, ids, vectors, OMENDB_F32, NULL);
}

/* Whether the nearest record of the value is `id`, at distance 0, and radius leaves it alone. */
static int tail_finds(const struct tail *tail, uint64_t value, uint64_t id, int exact,
                      omendb_explain *explain)
{
    float vector[TAIL_DIM], distances[TAIL_K];
    uint64_t ids[TAIL_K];
    size_t count = 0, within = 0;
    omendb_query query = OMENDB_QUERY_INIT;
    tail_vector(value, vector);
    query.vector = vector;
    query.k = TAIL_K;
    query.exact = (uint32_t)exact;
    query.explain = explain;
    int code = omendb_search(tail->collection, NULL, &query, ids, distances, &count);
    int found = code == OMENDB_OK && count == TAIL_K && ids[0] == id && distances[0] == 0.0f;
    query.use_radius = 1;
    query.radius = 0.5f;
    code = omendb_search(tail->collection, NULL, &query, ids, distances, &within);
    return found && code == OMENDB_OK && within == 1 && ids[0] == id;
}

static uint64_t tail_count_found(const struct tail *tail, uint64_t first, uint64_t count,
                                 uint64_t shift, int exact)
{
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint64_t found = 0;
    for (uint64_t i = 0; i < TAIL_QUERIES; i++) {
        uint64_t id = first + i * count / TAIL_QUERIES;
        found += (uint64_t)tail_finds(tail, id + shift, id, exact, &explain);
    }
    return found;
}

TEST(all_rows_beside_a_graph_are_found)
{
    struct tail tail;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.tail_limit = UINT64_C(1) << 30;
    CHECK_EQ_INT(tail_open(&tail, support_path("beside"), &options), OMENDB_OK);
    CHECK_EQ_INT(tail_put(&tail, 0, TAIL_LINKED, 0), OMENDB_OK);
    CHECK_EQ_INT(support_work(tail.db), OMENDB_OK);
    CHECK_EQ_INT(tail_put(&tail, TAIL_LINKED, TAIL_ROWS, 0), OMENDB_OK);
    CHECK(tail_finds(&tail, TAIL_LINKED, TAIL_LINKED, 0, &explain));
    CHECK_EQ_INT(explain.graph_rows, TAIL_LINKED);
    CHECK_EQ_INT(explain.scanned_rows, TAIL_ROWS);
    CHECK_EQ_INT(tail_count_found(&tail, TAIL_LINKED, TAIL_ROWS, 0, 0), TAIL_QUERIES);
    CHECK_EQ_INT(tail_close(&tail), OMENDB_OK);
}

/* As often as it takes to be noticed. */
static int tail_search_often(const struct tail *tail)
{
    uint64_t found = 0;
    for (uint64_t i = 0; i < TAIL_NOTICED; i++)
        found += (uint64_t)tail_finds(tail, i, i, 0, NULL);
    return found == TAIL_NOTICED;
}

/* A log over its limit: the first thing to do in the background is a checkpoint, before linking. */
TEST(a_checkpoint_in_the_background_links_what_it_writes)
{
    struct tail tail;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    omendb_stats stats = OMENDB_STATS_INIT;
    int more = 0;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.wal_limit = UINT64_C(64) << 10;
    options.vfs = tail_vfs();
    CHECK_EQ_INT(tail_open(&tail, support_path("linking"), &options), OMENDB_OK);
    CHECK_EQ_INT(tail_put(&tail, 0, TAIL_ROWS, 0), OMENDB_OK);
    CHECK(tail_search_often(&tail));
    CHECK(tail_finds(&tail, 7, 7, 0, &explain));
    CHECK_EQ_INT(explain.scanned_rows, TAIL_ROWS);
    CHECK_EQ_INT(omendb_get_stats(tail.db, &stats), OMENDB_OK);
    uint64_t before = stats.checkpoints;
    CHECK_EQ_INT(omendb_work(tail.db, 1, &more), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(tail.db, &stats), OMENDB_OK);
    CHECK_EQ_INT(stats.checkpoints, before + 1);
    CHECK_EQ_INT(stats.merges, 0);
    explain = (omendb_explain)OMENDB_EXPLAIN_INIT;
    CHECK(tail_finds(&tail, 7, 7, 0, &explain));
    CHECK_EQ_INT(explain.graph_rows, TAIL_ROWS);
    CHECK_EQ_INT(explain.scanned_rows, 0);
    CHECK_EQ_INT(support_check(tail.db), OMENDB_OK);
    CHECK_EQ_INT(tail_close(&tail), OMENDB_OK);
}

static uint64_t tail_now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int tail_open_beside(struct tail *tail, const char *path)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = 1;
    options.sync = OMENDB_SYNC_OFF;
    options.tail_limit = UINT64_C(1) << 20;
    options.vfs = tail_vfs();
    return tail_open(tail, path, &options);
}

static uint64_t tail_scanned(const struct tail *tail)
{
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    return tail_finds(tail, 1, 1, 1, NULL) && tail_finds(tail, 1, 1, 0, &explain)
               ? explain.scanned_rows
               : UINT64_MAX;
}

/* Before a batch is taken what is not linked is below a thirty-second of tail_limit, or the call
 * was slowed to 256 KiB a second. */
TEST(while_a_collection_is_searched_writers_wait_for_linking)
{
    enum { BATCH = 64, BYTES = BATCH * TAIL_DIM * 4, ALLOWED = (1 << 15) / (TAIL_DIM * 4) };
    struct tail tail;
    CHECK_EQ_INT(tail_open_beside(&tail, support_path("waiting")), OMENDB_OK);
    CHECK_EQ_INT(tail_put(&tail, 0, TAIL_ROWS, 0), OMENDB_OK); /* fewer would all be scanned */
    for (uint64_t first = TAIL_ROWS; first < 2 * TAIL_ROWS; first += BATCH) {
        CHECK(tail_search_often(&tail));
        uint64_t begun = tail_now_us();
        CHECK_EQ_INT(tail_put(&tail, first, BATCH, 0), OMENDB_OK);
        int slowed = tail_now_us() - begun >= BYTES * UINT64_C(1000000) / (1 << 18);
        CHECK(slowed || tail_scanned(&tail) <= ALLOWED + BATCH);
    }
    CHECK_EQ_INT(tail_close(&tail), OMENDB_OK);
}

/* Far more than is linked meanwhile is taken at once; the machine may be busy with other things. */
TEST(a_writer_beside_whom_nobody_searches_does_not_wait)
{
    uint64_t scanned = 0;
    for (int attempt = 0; attempt < 20 && scanned < TAIL_ROWS + TAIL_ROWS / 2; attempt++) {
        struct tail tail;
        CHECK_EQ_INT(tail_open_beside(&tail, support_path("alone")), OMENDB_OK);
        CHECK_EQ_INT(tail_put(&tail, 0, TAIL_ROWS, 0), OMENDB_OK);
        CHECK_EQ_INT(tail_put(&tail, TAIL_ROWS, TAIL_ROWS, 0), OMENDB_OK);
        scanned = tail_scanned(&tail);
        CHECK_EQ_INT(tail_close(&tail), OMENDB_OK);
    }
    CHECK(scanned >= TAIL_ROWS + TAIL_ROWS / 2);
}

/* What the reader sees of records [0, rows): all of them, the first hundred with other vectors, but
 * not the second hundred. */
static void tail_check_reader(const struct tail *reader, uint64_t rows)
{
    float vector[TAIL_DIM], expected[TAIL_DIM];
    omendb_rows *scan = NULL;
    uint64_t count = 0, scanned = 0, id;
    CHECK_EQ_INT(omendb_count(reader->collection, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, rows - 100);
    CHECK_EQ_INT(omendb_scan(reader->collection, NULL, 0, UINT64_MAX - 1, &scan), OMENDB_OK);
    while (omendb_rows_next(scan, &id, OMENDB_F32, vector) == OMENDB_OK) {
        tail_vector(id < 100 ? id + 500000 : id, expected);
        scanned += id < rows && memcmp(vector, expected, sizeof vector) == 0;
    }
    omendb_rows_close(scan);
    CHECK_EQ_INT(scanned, rows - 100);
    CHECK_EQ_INT(omendb_get(reader->collection, NULL, rows - 1, OMENDB_F32, vector), OMENDB_OK);
    tail_vector(rows - 1, expected);
    CHECK(memcmp(vector, expected, sizeof vector) == 0);
    CHECK_EQ_INT(omendb_get(reader->collection, NULL, 100, OMENDB_F32, vector), OMENDB_NOTFOUND);
    for (int exact = 0; exact < 2; exact++) {
        CHECK_EQ_INT(tail_count_found(reader, 200, rows - 200, 0, exact), TAIL_QUERIES);
        CHECK_EQ_INT(tail_count_found(reader, 0, 100, 500000, exact), TAIL_QUERIES);
        CHECK_EQ_INT(tail_count_found(reader, 0, 200, 0, exact), 0);
    }
}

TEST(a_read_only_opener_finds_what_is_only_in_the_log)
{
    struct tail writer, reader;
    omendb_options options = OMENDB_OPTIONS_INIT;
    const char *path = support_path("log");
    options.threads = 0;
    CHECK_EQ_INT(tail_open(&writer, path, &options), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(writer.db), OMENDB_OK);
    CHECK_EQ_INT(tail_put(&writer, 0, TAIL_ROWS, 0), OMENDB_OK);
    CHECK_EQ_INT(tail_put(&writer, 0, 100, 500000), OMENDB_OK);
    for (uint64_t id = 100; id < 200; id++)
        CHECK_EQ_INT(omendb_delete(writer.collection, NULL, id), OMENDB_OK);
    options.read_only = 1;
    CHECK_EQ_INT(tail_open(&reader, path, &options), OMENDB_OK);
    tail_check_reader(&reader, TAIL_ROWS);
    CHECK_EQ_INT(tail_put(&writer, TAIL_ROWS, TAIL_ROWS, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(reader.db), OMENDB_OK);
    tail_check_reader(&reader, 2 * TAIL_ROWS);
    CHECK_EQ_INT(tail_close(&reader), OMENDB_OK);
    CHECK_EQ_INT(tail_close(&writer), OMENDB_OK);
}

TEST_MAIN(all_rows_beside_a_graph_are_found, a_checkpoint_in_the_background_links_what_it_writes,
          while_a_collection_is_searched_writers_wait_for_linking,
          a_writer_beside_whom_nobody_searches_does_not_wait,
          a_read_only_opener_finds_what_is_only_in_the_log)
