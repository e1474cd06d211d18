/* test_long_scans.c: a scan of more rows than are compared between two looks at the clock gives
 * what a scan in one go would, and ends when its time is over, wherever it is. */
#define _POSIX_C_SOURCE 200809L

#include "support.h"
#include "test.h"

#define DIM   2
#define ROWS  140000
#define K     5
#define EQUAL 40 /* the last rows, all at one distance */

static omendb *db;
static omendb_collection *rows;
static uint64_t ids[K];
static float vectors[ROWS * DIM];

/* A clock that moves on by a microsecond at each look. */
static uint64_t ticks;

static uint64_t tick(void *context)
{
    (void)context;
    return ++ticks;
}

/* The farther the lower the id, but for the last ones. */
static void open_filled(const char *name)
{
    static omendb_vfs vfs;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    vfs = *omendb_default_vfs();
    vfs.now_us = tick;
    options.vfs = &vfs;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.tail_limit = UINT64_C(1) << 30;
    schema.dim = DIM;
    for (size_t i = 0; i < ROWS; i++)
        vectors[i * DIM] = i + EQUAL < ROWS ? (float)(ROWS - i) : 3.0f;
    CHECK_EQ_INT(omendb_open(support_path(name), &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "rows", &schema, &rows), OMENDB_OK);
    CHECK_EQ_INT(omendb_add_batch(rows, NULL, ROWS, NULL, vectors, OMENDB_F32, NULL), OMENDB_OK);
}

static void close_all(void)
{
    omendb_collection_close(rows);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

static int search(float at, uint64_t timeout_us, size_t *count)
{
    const float vector[DIM] = {at};
    omendb_query query = OMENDB_QUERY_INIT;
    query.vector = vector;
    query.k = K;
    query.exact = 1;
    query.timeout_us = timeout_us;
    return omendb_search(rows, NULL, &query, ids, NULL, count);
}

/* Row i, whose id is i, has the distance ROWS - i from zero. */
TEST(the_nearest_are_found_in_whichever_stretch_they_are)
{
    size_t count = 0;
    open_filled("stretches");
    for (uint64_t row = 100; row + EQUAL + 100 < ROWS; row += 6543) {
        CHECK_EQ_INT(search((float)(ROWS - row) + 0.25f, 0, &count), OMENDB_OK);
        CHECK_EQ_INT(count, K);
        CHECK_EQ_INT(ids[0], row);
        CHECK_EQ_INT(ids[1], row - 1);
        CHECK_EQ_INT(ids[2], row + 1);
    }
    close_all();
}

/* The k-th of the last ones is told from the others at its distance by a second scan. */
TEST(equal_ones_in_the_last_stretch_come_by_id)
{
    size_t count = 0;
    open_filled("equal");
    CHECK_EQ_INT(search(3.0f, 0, &count), OMENDB_OK);
    CHECK_EQ_INT(count, K);
    for (size_t i = 0; i < K; i++)
        CHECK_EQ_INT(ids[i], ROWS - EQUAL + i);
    close_all();
}

/* However little time it is given, it ends with that or with the whole answer. */
static void times_out(const char *name, float at, uint64_t first, uint64_t least)
{
    size_t count = 0;
    uint64_t in_vain = 0;
    open_filled(name);
    int code = search(at, 1, &count);
    for (uint64_t timeout = 1; code != OMENDB_OK && timeout < 100; timeout++) {
        CHECK_EQ_INT(code, OMENDB_TIMEOUT);
        in_vain++;
        code = search(at, timeout, &count);
    }
    CHECK_EQ_INT(code, OMENDB_OK);
    CHECK_EQ_INT(count, K);
    CHECK_EQ_INT(ids[0], first);
    CHECK(in_vain >= least);
    close_all();
}

TEST(a_scan_ends_between_two_stretches_when_its_time_is_over)
{
    times_out("once", 70000.25f, ROWS - 70000, 4);
}

TEST(a_second_scan_does_so_too)
{
    times_out("twice", 3.0f, ROWS - EQUAL, 7);
}

TEST_MAIN(the_nearest_are_found_in_whichever_stretch_they_are,
          equal_ones_in_the_last_stretch_come_by_id,
          a_scan_ends_between_two_stretches_when_its_time_is_over, a_second_scan_does_so_too)
