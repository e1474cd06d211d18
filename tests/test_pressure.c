/* test_pressure.c: who waits for whom where memory, the log or rows without a graph come to their
 * limits, and for how long: writers, the background, merges and checkpoints that fail. What holds
 * one of them up is taken by the test itself: the right to merge, a mutex, a disk that is full. */
#include "internals.h"

#include <pthread.h>

#include "crash_vfs.h"
#include "support.h"
#include "test.h"

#define PRESSURE_DIM 8

/* ------------------------------------------------------------------------------------------------
 * a database of files in memory, with a clock and memory of its own */

static struct pressure {
    struct crash_fs *fs;
    omendb *db;
    omendb_collection *docs;
    _Atomic uint64_t now_us, tick_us; /* each look at the clock moves it on */
    _Atomic int lacks_memory;
    _Atomic int64_t fails_after; /* allocations; negative: never */
    _Atomic uint64_t told;       /* lines of the log */
    uint64_t begun;              /* checkpoints until the test began */
} pressure;

static uint64_t pressure_now(void *context)
{
    (void)context;
    return atomic_fetch_add(&pressure.now_us, atomic_load(&pressure.tick_us));
}

static int pressure_fails(void)
{
    return atomic_load(&pressure.lacks_memory) || (atomic_load(&pressure.fails_after) >= 0 &&
                                                   atomic_fetch_sub(&pressure.fails_after, 1) == 0);
}

static void *pressure_alloc(void *context, size_t size)
{
    (void)context;
    return pressure_fails() ? NULL : malloc(size);
}

static void *pressure_resize(void *context, void *block, size_t old_size, size_t new_size)
{
    (void)context;
    (void)old_size;
    return pressure_fails() ? NULL : realloc(block, new_size);
}

static void pressure_release(void *context, void *block, size_t size)
{
    (void)context;
    (void)size;
    free(block);
}

static void pressure_log(void *context, int code, const char *line)
{
    (void)context;
    (void)code;
    (void)line;
    atomic_fetch_add(&pressure.told, 1);
}

static int pressure_open(int32_t threads, int read_only)
{
    static const omendb_allocator allocator = {sizeof allocator, NULL, pressure_alloc,
                                               pressure_resize, pressure_release};
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.vfs = &pressure.fs->vfs;
    options.threads = threads;
    options.read_only = (uint32_t)read_only;
    options.wal_limit = options.tail_limit = UINT64_C(1) << 30; /* nothing happens unasked */
    options.allocator = &allocator;
    options.log = pressure_log;
    return omendb_open("/db", &options, &pressure.db);
}

static omendb_stats pressure_stats(void)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    omendb_get_stats(pressure.db, &stats);
    return stats;
}

static int pressure_begin(int32_t threads)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    memset(&pressure, 0, sizeof pressure);
    pressure.fails_after = -1;
    pressure.now_us = 10000000;
    pressure.tick_us = 1000;
    pressure.fs = crash_fs_create(0);
    pressure.fs->vfs.now_us = pressure_now;
    schema.dim = PRESSURE_DIM;
    schema.M = 4;
    schema.ef_construction = 8;
    int status = pressure_open(threads, 0);
    if (status == OMENDB_OK)
        status = omendb_collection_create(pressure.db, "docs", &schema, &pressure.docs);
    pressure.begun = pressure_stats().checkpoints;
    return status;
}

static int pressure_end(void)
{
    pressure.fs->faults.kinds = 0;
    omendb_collection_close(pressure.docs);
    const int status = omendb_close(pressure.db);
    crash_fs_destroy(pressure.fs);
    return status;
}

static int pressure_put(uint64_t first, uint64_t count)
{
    static float vectors[2000 * PRESSURE_DIM];
    static uint64_t ids[2000];
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = first + i;
        support_vector(first + i, PRESSURE_DIM, vectors + i * PRESSURE_DIM);
    }
    return omendb_put_batch(pressure.docs, NULL, (size_t)count, ids, vectors, OMENDB_F32, NULL);
}

/* Rows of a segment without a graph. */
static int pressure_seal(uint64_t first, uint64_t count)
{
    const int status = pressure_put(first, count);
    return status != OMENDB_OK ? status : omendb_checkpoint(pressure.db);
}

static uint64_t pressure_checkpoints(void)
{
    return pressure_stats().checkpoints - pressure.begun;
}

static uint64_t pressure_count(void)
{
    uint64_t count = 0;
    return omendb_count(pressure.docs, NULL, &count) == OMENDB_OK ? count : UINT64_MAX;
}

static struct collection *pressure_collection(void)
{
    return pressure.docs->collection;
}

/* As if writers might use so much of what is in use now, and checkpoints what they need. */
static void pressure_limit(uint64_t percent)
{
    struct memory *memory = &pressure.db->memory;
    memory->reserve = UINT64_C(4) << 20;
    memory->limit = atomic_load(&memory->used) * percent / 100 + memory->reserve;
}

/* Ends the thread of the background, if there is one, so that limits can be moved and calls made to
 * fail. Until pressure_resume there will be one that has not begun: writers count on it. */
static int pressure_pause(void)
{
    work_stop(pressure.db);
    work_destroy(pressure.db);
    atomic_store(&pressure.db->stopping, 0);
    return work_create(pressure.db, 1);
}

static int pressure_resume(void)
{
    return work_start(pressure.db);
}

/* A segment of 2000 rows that no thread could link yet. */
static int pressure_begin_behind(void)
{
    int status = pressure_begin(0);
    if (status == OMENDB_OK)
        status = pressure_seal(0, 2000);
    return status == OMENDB_OK ? pressure_pause() : status;
}

/* ------------------------------------------------------------------------------------------------
 * what is asked for memory that is not there */

/* What made room for a part of them would stay in memory until a checkpoint. */
TEST(a_batch_that_does_not_fit_takes_nothing)
{
    enum { MANY = 60000, DIMENSIONS = 12 };
    static const float zeros[MANY * DIMENSIONS] = {0};
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *docs;
    omendb *db;
    options.threads = 0;
    options.memory_limit = OMENDB_MEMORY_LIMIT_MIN + (UINT64_C(4) << 20);
    schema.dim = DIMENSIONS;
    CHECK_EQ_INT(omendb_open(":memory:", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "docs", &schema, &docs), OMENDB_OK);
    CHECK_EQ_INT(omendb_add_batch(docs, NULL, 10, NULL, zeros, OMENDB_F32, NULL), OMENDB_OK);
    const uint64_t before = atomic_load(&db->memory.used);
    for (size_t count = MANY; count > 0; count -= MANY / 6) {
        const int code = omendb_add_batch(docs, NULL, count, NULL, zeros, OMENDB_F32, NULL);
        if (code == OMENDB_OK)
            break;
        CHECK_EQ_INT(code, OMENDB_NOMEM);
        CHECK(strstr(omendb_errmsg(), "memory_limit") != NULL);
        CHECK_EQ_INT(atomic_load(&db->memory.used), before);
        CHECK(count > MANY / 6);
    }
    omendb_collection_close(docs);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* Far more vectors than memory_limit has room for twice, but few records. */
TEST(records_that_replace_each_other_in_a_batch_need_little)
{
    enum { MANY = 10000, DIMENSIONS = 128, RECORDS = 10 };
    static const float zeros[MANY * DIMENSIONS] = {0};
    static uint64_t ids[MANY];
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *docs;
    omendb *db;
    uint64_t count = 0;
    options.threads = 0;
    options.memory_limit = OMENDB_MEMORY_LIMIT_MIN + (UINT64_C(2) << 20);
    schema.dim = DIMENSIONS;
    for (uint64_t i = 0; i < MANY; i++)
        ids[i] = i % RECORDS;
    CHECK_EQ_INT(omendb_open(":memory:", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "docs", &schema, &docs), OMENDB_OK);
    CHECK_EQ_INT(omendb_put_batch(docs, NULL, MANY, ids, zeros, OMENDB_F32, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_count(docs, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, RECORDS);
    /* What is wrong with a batch is told rather than that it is too large for memory. */
    CHECK_EQ_INT(omendb_add_batch(docs, NULL, SIZE_MAX / 2, NULL, zeros, OMENDB_F32, NULL),
                 OMENDB_TOOBIG);
    CHECK_EQ_INT(omendb_add_batch(docs, NULL, MANY, NULL, zeros, 77, NULL), OMENDB_INVALID);
    omendb_collection_close(docs);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(where_nothing_can_be_given_back_nothing_is_tried_again)
{
    struct work_wait wait = {0};
    omendb *memory = NULL;
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(0, 100), OMENDB_OK);
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 0); /* no limit */
    CHECK_EQ_INT(pressure_checkpoints(), 0);
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = 0;
    options.memory_limit = OMENDB_MEMORY_LIMIT_MIN;
    CHECK_EQ_INT(omendb_open(":memory:", &options, &memory), OMENDB_OK);
    error_set(OMENDB_NOMEM, "there is none");
    CHECK_EQ_INT(work_relieve(memory, &wait), 0);
    CHECK_EQ_STR(omendb_errmsg(), "there is none");
    CHECK_EQ_INT(omendb_close(memory), OMENDB_OK);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST(a_reader_asks_only_for_copies_and_only_in_time)
{
    struct work_wait wait = {0};
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(0, 100), OMENDB_OK);
    omendb_collection_close(pressure.docs);
    CHECK_EQ_INT(omendb_close(pressure.db), OMENDB_OK);
    CHECK_EQ_INT(pressure_open(0, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(pressure.db, "docs", NULL, &pressure.docs), OMENDB_OK);
    pressure_limit(200);
    pressure.db->memory.spare = 0;
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 0);
    wait.until_us = 1;
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 0);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST(whoever_lacks_memory_is_told_so_and_not_that_the_checkpoint_failed)
{
    struct work_wait wait = {0};
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(0, 500), OMENDB_OK);
    pressure_limit(200);
    crash_faults_begin(pressure.fs, CRASH_CALL_SPACE, 1, 1, OMENDB_FULL, ENOSPC);
    error_set(OMENDB_NOMEM, "a first reason");
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 1); /* trying again may tell why */
    CHECK_EQ_INT(wait.checkpoints, 1);
    error_set(OMENDB_NOMEM, "a second reason");
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 0);
    CHECK_EQ_STR(omendb_errmsg(), "a second reason");
    CHECK_EQ_INT(wait.checkpoints, 2);
    pressure.fs->faults.kinds = 0;
    pressure.db->memory.limit = 0;
    CHECK_EQ_INT(pressure_count(), 500);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST(a_checkpoint_that_frees_something_is_worth_another_try)
{
    struct work_wait wait = {0};
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(0, 500), OMENDB_OK);
    pressure_limit(200);
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 1);
    CHECK_EQ_INT(pressure_checkpoints(), 1);
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 0); /* there is nothing more to write */
    CHECK_EQ_INT(pressure_checkpoints(), 1);
    pressure.db->memory.limit = 0;
    for (uint64_t i = 0; i < 10; i++)
        CHECK_EQ_INT(pressure_put(500 + i * 2000, 2000), OMENDB_OK);
    pressure_limit(120);
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 1); /* not the first, but it freed some */
    CHECK_EQ_INT(pressure_checkpoints(), 2);
    /* what a cursor keeps is not freed by another one */
    omendb_rows *rows = NULL;
    pressure.db->memory.limit = 0;
    for (uint64_t i = 0; i < 10; i++)
        CHECK_EQ_INT(pressure_put(500 + i * 2000, 2000), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(pressure.docs, NULL, 0, 10, &rows), OMENDB_OK);
    pressure_limit(120);
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 0);
    CHECK_EQ_INT(pressure_checkpoints(), 3);
    omendb_rows_close(rows);
    /* when the time is over copies are asked for once, and no checkpoint is made */
    pressure.db->memory.limit = 0;
    for (uint64_t i = 0; i < 10; i++)
        CHECK_EQ_INT(pressure_put(20500 + i * 2000, 2000), OMENDB_OK);
    pressure_limit(120);
    wait.until_us = 1;
    for (int i = 0; i < 2; i++) {
        error_set(OMENDB_NOMEM, "its own reason");
        CHECK_EQ_INT(work_relieve(pressure.db, &wait), 0);
        CHECK_EQ_STR(omendb_errmsg(), "its own reason");
    }
    CHECK_EQ_INT(pressure_checkpoints(), 3);
    pressure.db->memory.limit = 0;
    CHECK_EQ_INT(pressure_count(), 40500);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

/* A merge that holds memory gives it back by and by: whoever lacks it waits, but not for ever. */
TEST(a_merge_is_waited_for_until_the_time_is_over)
{
    struct work_wait wait = {0};
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    pressure.db->stall_timeout_us = 1000000;
    CHECK_EQ_INT(work_merge_begin(pressure.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(pressure.db), OMENDB_OK);
    pressure_limit(200); /* nothing is in the log: it is not pressed */
    atomic_store(&pressure.tick_us, 200000);
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 1);
    CHECK(atomic_load(&pressure.now_us) >= wait.until_us);
    atomic_store(&pressure.tick_us, 1000);
    pressure.db->memory.limit = 0;
    for (uint64_t i = 0; i < 10; i++)
        CHECK_EQ_INT(pressure_put(i * 2000, 2000), OMENDB_OK);
    /* a checkpoint that lacks memory itself */
    wait = (struct work_wait){0};
    pressure_limit(120);
    atomic_store(&pressure.lacks_memory, 1);
    atomic_store(&pressure.tick_us, 200000);
    error_set(OMENDB_NOMEM, "its own reason");
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 1);
    CHECK_EQ_STR(omendb_errmsg(), "its own reason");
    wait = (struct work_wait){.until_us = 1};
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 0);
    work_merge_end(pressure.db);
    wait = (struct work_wait){.until_us = 60000000};
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 0);
    atomic_store(&pressure.lacks_memory, 0);
    atomic_store(&pressure.tick_us, 1000);
    /* a merge ended since: it may have left what the checkpoint did not */
    CHECK_EQ_INT(work_merge_begin(pressure.db, NULL, NULL), OMENDB_OK);
    pressure_limit(120);
    wait = (struct work_wait){.until_us = 60000000, .checkpoints = 1};
    CHECK_EQ_INT(work_relieve(pressure.db, &wait), 1);
    work_merge_end(pressure.db);
    pressure.db->memory.limit = 0;
    CHECK_EQ_INT(pressure_count(), 20000);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

/* What a call fills in vain leads to checkpoints and merges itself, as long as it tries. */
TEST(merges_that_end_again_and_again_are_no_reason_to_try_for_ever)
{
    struct work_wait wait = {.until_us = UINT64_MAX, .checkpoints = 1};
    int tries = 0, again = 1;
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(0, 500), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(pressure.db), OMENDB_OK);
    pressure_limit(200);
    for (; again && tries < 50; tries++) {
        CHECK_EQ_INT(work_merge_begin(pressure.db, NULL, NULL), OMENDB_OK);
        work_merge_end(pressure.db);
        error_set(OMENDB_NOMEM, "its own reason");
        again = work_relieve(pressure.db, &wait);
    }
    CHECK(tries > 1 && tries < 20);
    CHECK_EQ_STR(omendb_errmsg(), "its own reason");
    pressure.db->memory.limit = 0;
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * what slows writers */

TEST(a_writer_of_nothing_is_not_slowed)
{
    CHECK_EQ_INT(pressure_begin(1), OMENDB_OK);
    CHECK_EQ_INT(work_throttle(pressure_collection(), 0), OMENDB_OK);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

/* With the right to merge in other hands. */
TEST(rows_that_wait_for_a_merge_slow_writers_and_then_stop_them)
{
    CHECK_EQ_INT(pressure_begin_behind(), OMENDB_OK);
    CHECK_EQ_INT(work_merge_begin(pressure.db, NULL, NULL), OMENDB_OK);
    const uint64_t bytes = 2000 * PRESSURE_DIM * sizeof(float);
    pressure.db->stall_timeout_us = 5000000;
    pressure.db->tail_limit = bytes / 8;
    CHECK_EQ_INT(pressure_resume(), OMENDB_OK);
    CHECK_EQ_INT(work_throttle(pressure_collection(), 1), OMENDB_OK); /* about a second */
    CHECK_EQ_INT(pressure_pause(), OMENDB_OK);
    CHECK_EQ_INT(work_merge_begin(pressure.db, NULL, NULL), OMENDB_OK);
    pressure.db->stall_timeout_us = 20000;
    pressure.db->tail_limit = bytes / 32;
    CHECK_EQ_INT(pressure_resume(), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(2000, 1), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "indexing is behind by more than tail_limit") != NULL);
    CHECK_EQ_INT(pressure_count(), 2000);
    CHECK_EQ_INT(pressure_pause(), OMENDB_OK); /* the right to merge is free again */
    pressure.db->stall_timeout_us = 600000000;
    CHECK_EQ_INT(pressure_resume(), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(2000, 1), OMENDB_OK); /* the background merges them */
    CHECK_EQ_INT(pressure_count(), 2001);
    CHECK_EQ_INT(pressure_pause(), OMENDB_OK); /* a merge is counted after it can be seen */
    CHECK(pressure_stats().merges >= 1);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST(a_writer_that_can_do_nothing_about_it_writes_on)
{
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(work_merge_begin(pressure.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(0, 2000), OMENDB_OK);
    pressure.db->tail_limit = 100;
    CHECK_EQ_INT(pressure_put(2000, 1), OMENDB_OK);
    CHECK_EQ_INT(pressure_count(), 2001);
    work_merge_end(pressure.db);
    CHECK_EQ_INT(pressure_put(2001, 1), OMENDB_OK);
    CHECK(pressure_stats().merges >= 1);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

/* A checkpoint is under way, for longer than a writer waits. */
TEST(a_log_of_twice_its_limit_stops_writers_who_are_told_why)
{
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(0, 1000), OMENDB_OK);
    CHECK_EQ_INT(pressure_pause(), OMENDB_OK);
    pressure.db->stall_timeout_us = 20000;
    pressure.db->wal_limit = atomic_load(&pressure.db->log_bytes) / 2;
    platform_mutex_lock(&pressure.db->maintenance_mutex);
    const int started = pressure_resume();
    const int code = pressure_put(1000, 1);
    platform_mutex_unlock(&pressure.db->maintenance_mutex);
    CHECK_EQ_INT(started, OMENDB_OK);
    CHECK_EQ_INT(code, OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "checkpoints are behind by more than wal_limit") != NULL);
    CHECK_EQ_INT(pressure_pause(), OMENDB_OK);
    pressure.db->stall_timeout_us = 600000000;
    CHECK_EQ_INT(pressure_resume(), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(1000, 1), OMENDB_OK);
    CHECK_EQ_INT(pressure_count(), 1001);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST(memory_that_no_checkpoint_frees_in_time_stops_writers_who_are_told_why)
{
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(0, 1000), OMENDB_OK);
    CHECK_EQ_INT(pressure_pause(), OMENDB_OK);
    pressure.db->stall_timeout_us = 20000;
    pressure_limit(110);
    platform_mutex_lock(&pressure.db->maintenance_mutex);
    const int started = pressure_resume();
    const int code = work_throttle(pressure_collection(), 1);
    const int told = strstr(omendb_errmsg(), "raise memory_limit") != NULL;
    platform_mutex_unlock(&pressure.db->maintenance_mutex);
    CHECK_EQ_INT(started, OMENDB_OK);
    CHECK_EQ_INT(code, OMENDB_BUSY);
    CHECK(told);
    CHECK_EQ_INT(pressure_pause(), OMENDB_OK);
    pressure.db->memory.limit = 0;
    CHECK_EQ_INT(pressure_count(), 1000);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

/* The background cannot, so whoever writes tries it, and is told why it cannot be. */
TEST(a_writer_is_told_why_checkpoints_fail)
{
    CHECK_EQ_INT(pressure_begin_behind(), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(2000, 1000), OMENDB_OK);
    const uint64_t bytes = atomic_load(&pressure.db->log_bytes);
    crash_faults_begin(pressure.fs, CRASH_CALL_SPACE, 1, 1, OMENDB_FULL, ENOSPC);
    CHECK_EQ_INT(omendb_checkpoint(pressure.db), OMENDB_FULL);
    pressure.db->wal_limit = bytes / 2;
    CHECK_EQ_INT(pressure_resume(), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(3000, 1), OMENDB_FULL);
    CHECK_EQ_INT(pressure_count(), 3000);
    CHECK_EQ_INT(pressure_pause(), OMENDB_OK);
    /* over another limit, it is tried when the time is over */
    pressure.db->wal_limit = bytes * 100;
    pressure.db->tail_limit = 100;
    pressure.db->stall_timeout_us = 5000;
    CHECK_EQ_INT(work_merge_begin(pressure.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(pressure_resume(), OMENDB_OK);
    CHECK_EQ_INT(work_throttle(pressure_collection(), 1), OMENDB_FULL);
    CHECK_EQ_INT(pressure_pause(), OMENDB_OK);
    pressure.fs->faults.kinds = 0;
    CHECK_EQ_INT(work_merge_begin(pressure.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(pressure_resume(), OMENDB_OK);
    CHECK_EQ_INT(work_throttle(pressure_collection(), 1), OMENDB_BUSY);
    CHECK_EQ_INT(atomic_load(&pressure.db->checkpoint_failed), 0);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * the background */

TEST(a_checkpoint_that_failed_is_tried_again_when_the_log_has_grown)
{
    int more = 1;
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(0, 1000), OMENDB_OK);
    const uint64_t bytes = atomic_load(&pressure.db->log_bytes);
    pressure.db->wal_limit = bytes;
    crash_faults_begin(pressure.fs, CRASH_CALL_SPACE, 1, 1, OMENDB_FULL, ENOSPC);
    CHECK_EQ_INT(omendb_work(pressure.db, 0, &more), OMENDB_FULL);
    CHECK_EQ_INT(atomic_load(&pressure.told), 1);
    pressure.fs->faults.calls = 0;
    for (int i = 0; i < 100; i++)
        (void)omendb_work(pressure.db, 0, &more);
    CHECK(!more);
    CHECK_EQ_INT(pressure.fs->faults.calls, 0); /* it was not even tried */
    pressure.fs->faults.kinds = 0;
    atomic_fetch_add(&pressure.db->log_bytes, bytes / 4);
    CHECK_EQ_INT(omendb_work(pressure.db, UINT64_MAX, &more), OMENDB_OK);
    CHECK_EQ_INT(pressure_checkpoints(), 1);
    CHECK_EQ_INT(pressure_count(), 1000);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

static _Atomic uint32_t pressure_done[400];

static int pressure_share(void *context, uint64_t index)
{
    (void)context;
    if (index == 20) /* as a writer would */
        atomic_store(&pressure.db->log_bytes, pressure.db->wal_limit);
    platform_sleep_us(200);
    /* Whoever has the last share waits for the one who left, on a busy machine for long. */
    for (int i = 0; index == 399 && i < 60000 && atomic_load(&pressure.db->checkpoints) == 0; i++)
        platform_sleep_us(1000);
    atomic_fetch_add(&pressure_done[index], 1);
    return OMENDB_OK;
}

TEST(a_thread_leaves_a_long_job_for_a_checkpoint)
{
    CHECK_EQ_INT(pressure_begin(1), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(0, 100), OMENDB_OK);
    memset(pressure_done, 0, sizeof pressure_done);
    CHECK_EQ_INT(work_parallel(pressure.db, 400, pressure_share, NULL), OMENDB_OK);
    for (size_t i = 0; i < 400; i++)
        CHECK_EQ_INT(atomic_load(&pressure_done[i]), 1);
    CHECK_EQ_INT(pressure_checkpoints(), 1); /* made before the job was over */
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

static _Atomic int pressure_looks;

static int pressure_stop_at_second_look(void *context, uint64_t done, uint64_t total)
{
    (void)context;
    return done > total || atomic_fetch_add(&pressure_looks, 1) > 0;
}

static void *pressure_optimize(void *argument)
{
    *(int *)argument = omendb_optimize(pressure.db, pressure_stop_at_second_look, NULL);
    return NULL;
}

static void *pressure_optimize_untold(void *argument)
{
    *(int *)argument = omendb_optimize(pressure.db, NULL, NULL);
    return NULL;
}

/* It is told how far the other merge is, and stops when it is told to; nothing was merged then. */
TEST(who_waits_for_the_right_to_merge_can_be_stopped)
{
    pthread_t thread;
    int code = -1;
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(0, 500), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(500, 500), OMENDB_OK);
    CHECK_EQ_INT(work_merge_begin(pressure.db, NULL, NULL), OMENDB_OK);
    atomic_store(&pressure_looks, 0);
    atomic_store(&pressure.db->merge_rows, 0);
    CHECK_EQ_INT(pthread_create(&thread, NULL, pressure_optimize, &code), 0);
    platform_sleep_us(250000);
    atomic_store(&pressure.db->merge_done, 3);
    atomic_store(&pressure.db->merge_rows, 10);
    pthread_join(thread, NULL);
    CHECK_EQ_INT(code, OMENDB_OK);
    CHECK_EQ_INT(pressure_stats().merges, 0);
    code = -1;
    CHECK_EQ_INT(pthread_create(&thread, NULL, pressure_optimize_untold, &code), 0);
    platform_sleep_us(150000);
    work_merge_end(pressure.db);
    pthread_join(thread, NULL);
    CHECK_EQ_INT(code, OMENDB_OK);
    CHECK_EQ_INT(pressure_stats().merges, 1);
    CHECK_EQ_INT(pressure_count(), 1000);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

/* Many small ones share a file; one that is large gets its own, and its own turn. */
TEST(a_large_collection_is_merged_alone)
{
    enum { DIM = 2048, ROWS = 530 };
    static float vectors[ROWS * DIM];
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *large = NULL;
    int more = 1;
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    schema.dim = DIM;
    schema.M = 4;
    schema.ef_construction = 8;
    CHECK_EQ_INT(omendb_collection_create(pressure.db, "large", &schema, &large), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(0, 2000), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(2000, 2000), OMENDB_OK); /* it is asked to be merged */
    for (size_t i = 0; i < (size_t)ROWS * DIM; i++)
        vectors[i] = (float)(support_mix(i) % 8);
    CHECK_EQ_INT(omendb_add_batch(large, NULL, ROWS, NULL, vectors, OMENDB_F32, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(pressure.db), OMENDB_OK); /* so is this */
    CHECK_EQ_INT(omendb_work(pressure.db, UINT64_MAX, &more), OMENDB_OK);
    CHECK_EQ_INT(pressure_stats().merges, 2);
    CHECK_EQ_INT(pressure_count(), 4000);
    struct version *one = version_acquire(pressure_collection());
    struct version *other = version_acquire(large->collection);
    const int apart = one->segment_count == 1 && other->segment_count == 1 &&
                      one->segments[0]->file != other->segments[0]->file;
    version_release(one);
    version_release(other);
    CHECK(apart);
    omendb_collection_close(large);
    CHECK_EQ_INT(support_check(pressure.db), OMENDB_OK);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST(a_reader_does_no_work_of_writers)
{
    int more = 1;
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(0, 1000), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(1000, 1000), OMENDB_OK);
    omendb_collection_close(pressure.docs);
    CHECK_EQ_INT(omendb_close(pressure.db), OMENDB_OK);
    CHECK_EQ_INT(pressure_open(0, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(pressure.db, "docs", NULL, &pressure.docs), OMENDB_OK);
    CHECK_EQ_INT(work_notice_reading(pressure_collection()), 0);
    pressure.db->tail_limit = 1000;
    work_notice_merge(pressure_collection());
    CHECK_EQ_INT(omendb_work(pressure.db, UINT64_MAX, &more), OMENDB_OK);
    CHECK(!more);
    CHECK_EQ_INT(pressure_stats().merges, 0);
    CHECK_EQ_INT(pressure_count(), 2000);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST(rows_of_a_dropped_collection_are_not_linked)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    int more = 1;
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(0, 1000), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_drop(pressure.db, "docs"), OMENDB_OK);
    work_notice_index(pressure_collection());
    CHECK_EQ_INT(omendb_work(pressure.db, UINT64_MAX, &more), OMENDB_OK);
    CHECK(!more);
    CHECK_EQ_INT(omendb_collection_get_stats(pressure.docs, &stats), OMENDB_DROPPED);
    struct version *version = version_acquire(pressure_collection());
    for (uint32_t i = 0; i < version->memtable_count; i++)
        CHECK_EQ_INT(atomic_load(&version->memtables[i]->indexed), 0);
    version_release(version);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST(opening_with_threads_survives_every_failing_allocation)
{
    int code = OMENDB_NOMEM;
    int64_t after = 0;
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(0, 100), OMENDB_OK);
    for (; code != OMENDB_OK; after++) {
        omendb_collection_close(pressure.docs);
        pressure.docs = NULL;
        CHECK_EQ_INT(omendb_close(pressure.db), OMENDB_OK);
        pressure.db = NULL;
        atomic_store(&pressure.fails_after, after);
        code = pressure_open(2, 0);
        atomic_store(&pressure.fails_after, -1);
        CHECK(code == OMENDB_OK || (code == OMENDB_NOMEM && pressure.db == NULL));
        CHECK_EQ_INT(after < 1000, 1);
    }
    CHECK(after > 10);
    CHECK_EQ_INT(omendb_collection_open(pressure.db, "docs", NULL, &pressure.docs), OMENDB_OK);
    CHECK_EQ_INT(pressure_count(), 100);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

static int pressure_count_segment(void *context, const char *name)
{
    *(int *)context += strncmp(name, "seg-", 4) == 0;
    return 0;
}

static int pressure_segment_files(void)
{
    const struct storage *storage = &pressure.db->storage;
    int count = 0;
    const int code = storage->vfs->list(storage->vfs->context, storage->directory,
                                        pressure_count_segment, &count);
    return code == OMENDB_OK ? count : -1;
}

/* The output of a merge that could not be published, and is needed by nobody any more. */
TEST(what_a_merge_wrote_in_vain_goes_with_its_collection)
{
    uint64_t at = 0, hits = 1;
    while (hits != 0 && at < 100) {
        CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
        CHECK_EQ_INT(pressure_seal(0, 500), OMENDB_OK);
        CHECK_EQ_INT(pressure_seal(500, 500), OMENDB_OK);
        crash_faults_begin(pressure.fs, CRASH_CALL_SPACE | CRASH_CALL_WRITE, ++at, 0, OMENDB_FULL,
                           ENOSPC);
        const int code = omendb_optimize(pressure.db, NULL, NULL);
        CHECK(code == OMENDB_OK || code == OMENDB_FULL);
        hits = pressure.fs->faults.hits;
        pressure.fs->faults.kinds = 0;
        CHECK_EQ_INT(pressure_count(), 1000);
        omendb_collection_close(pressure.docs);
        pressure.docs = NULL;
        CHECK_EQ_INT(omendb_collection_drop(pressure.db, "docs"), OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(pressure.db), OMENDB_OK);
        CHECK_EQ_INT(pressure_segment_files(), 0);
        CHECK_EQ_INT(pressure_end(), OMENDB_OK);
    }
    CHECK(at > 5 && at < 100);
}

/* Opens the database once more; how many records it has. */
static uint64_t pressure_count_anew(void)
{
    omendb_collection_close(pressure.docs);
    omendb_close(pressure.db);
    pressure.docs = NULL;
    return pressure_open(0, 0) == OMENDB_OK &&
                   omendb_collection_open(pressure.db, "docs", NULL, &pressure.docs) == OMENDB_OK
               ? pressure_count()
               : UINT64_MAX;
}

/* A checkpoint of 100 rows beside 100 others, of which one call fails, counted from 1. *again: what
 * a write and a checkpoint say after it. */
static int pressure_fail_in_checkpoint(int kinds, uint64_t at, int *again)
{
    int code = pressure_begin(0);
    code = code == OMENDB_OK ? pressure_seal(0, 100) : code;
    code = code == OMENDB_OK ? pressure_put(100, 100) : code;
    *again = code;
    if (code != OMENDB_OK)
        return OMENDB_MISUSE;
    crash_faults_begin(pressure.fs, kinds, at, 0, OMENDB_IOERR, EMFILE);
    code = omendb_checkpoint(pressure.db);
    pressure.fs->faults.kinds = 0;
    *again = pressure_put(200, 1);
    if (*again == OMENDB_OK)
        *again = omendb_checkpoint(pressure.db);
    return code;
}

/* What was not written is not unknown: only of a rename it cannot be told whether it happened. */
TEST(a_checkpoint_that_is_refused_a_call_leaves_the_handle_writable)
{
    uint64_t hits = 1, refused = 0, renamed = 0;
    for (uint64_t at = 1; hits != 0 && at < 200; at++) {
        int again;
        const int code = pressure_fail_in_checkpoint(CRASH_CALL_ALL & ~CRASH_CALL_SYNC, at, &again);
        const int unknown = strcmp(pressure.fs->faults.call, "crash_rename") == 0;
        hits = pressure.fs->faults.hits;
        refused += code == OMENDB_IOERR;
        renamed += (uint64_t)unknown;
        CHECK(code == OMENDB_OK || code == (unknown ? OMENDB_POISONED : OMENDB_IOERR));
        CHECK_EQ_INT(again, unknown ? OMENDB_POISONED : OMENDB_OK);
        if (unknown) {
            CHECK(strstr(omendb_errmsg(), "took the place of the former one is not known") != NULL);
            CHECK(strstr(omendb_errmsg(), "sync") == NULL);
        }
        CHECK_EQ_INT(pressure_count_anew(), unknown ? 200 : 201);
        CHECK_EQ_INT(pressure_end(), OMENDB_OK);
    }
    CHECK(hits == 0 && refused > 5 && renamed == 1);
}

TEST(a_checkpoint_of_which_a_sync_fails_poisons_the_handle)
{
    uint64_t hits = 1, at = 0;
    while (hits != 0 && at < 50) {
        int again;
        const int code = pressure_fail_in_checkpoint(CRASH_CALL_SYNC, ++at, &again);
        hits = pressure.fs->faults.hits;
        CHECK((code == OMENDB_OK) == (hits == 0));
        CHECK_EQ_INT(again, hits == 0 ? OMENDB_OK : OMENDB_POISONED);
        if (hits != 0)
            CHECK(strstr(omendb_errmsg(), "cannot sync ") != NULL);
        CHECK_EQ_INT(pressure_count_anew(), hits == 0 ? 201 : 200);
        CHECK_EQ_INT(pressure_end(), OMENDB_OK);
    }
    CHECK(at > 4 && at < 50);
}

/* From the moment on that the output of the merge is opened, writers have no byte left. */
static int pressure_open_full(void *context, void *directory, const char *name, int flags,
                              void **file)
{
    struct memory *memory = &pressure.db->memory;
    if (strncmp(name, "seg-", 4) == 0 && flags == OMENDB_OPEN_READ && memory->limit == 0) {
        memory->reserve = UINT64_C(4) << 20;
        memory->limit = atomic_load(&memory->used) + memory->reserve;
    }
    return crash_open(context, directory, name, flags, file);
}

TEST(what_a_merge_wrote_is_installed_though_memory_is_at_its_limit)
{
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(0, 500), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(500, 500), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(pressure.docs, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(pressure.db), OMENDB_OK);
    pressure.fs->vfs.open = pressure_open_full;
    CHECK_EQ_INT(omendb_optimize(pressure.db, NULL, NULL), OMENDB_OK);
    CHECK(pressure.db->memory.limit != 0);
    pressure.db->memory.limit = pressure.db->memory.reserve = 0;
    CHECK_EQ_INT(pressure_stats().merges, 1);
    CHECK_EQ_INT(pressure_segment_files(), 1);
    CHECK_EQ_INT(pressure_count(), 999);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * collections that are only searched */

/* As a search does now and then; a second later each time. */
static int pressure_look(void)
{
    atomic_fetch_add(&pressure.now_us, 2000000);
    return work_notice_reading(pressure_collection());
}

static uint64_t pressure_segments(void)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    omendb_collection_get_stats(pressure.docs, &stats);
    return stats.segments;
}

TEST(an_empty_collection_has_nothing_to_settle)
{
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_look(), 0);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST(a_little_in_memory_is_not_sealed_for_the_sake_of_searches)
{
    int more = 1;
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(0, 2000), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(pressure.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(2000, 300), OMENDB_OK);
    CHECK_EQ_INT(pressure_put(2300, 20), OMENDB_OK);
    const uint64_t checkpoints = pressure_checkpoints();
    for (int i = 0; i < 3; i++)
        CHECK_EQ_INT(pressure_look(), 1);
    CHECK_EQ_INT(omendb_work(pressure.db, UINT64_MAX, &more), OMENDB_OK);
    CHECK_EQ_INT(pressure_checkpoints(), checkpoints);
    CHECK_EQ_INT(pressure_segments(), 1);
    CHECK_EQ_INT(pressure_count(), 2320);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

/* What was found settled counts only as long as rows neither went nor came. */
TEST(a_collection_that_changed_has_to_settle_anew)
{
    uint64_t ids[600];
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(0, 1900), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(pressure.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(1900, 300), OMENDB_OK);
    for (int i = 0; i < 3; i++)
        CHECK_EQ_INT(pressure_look(), 1);
    CHECK(compact_has_settled(pressure_collection(), 2200));
    CHECK(compact_wanted(pressure_collection()));
    CHECK_EQ_INT(pressure_put(2200, 100), OMENDB_OK);
    CHECK(!compact_has_settled(pressure_collection(), 2300));
    for (uint64_t i = 0; i < 600; i++)
        ids[i] = i;
    CHECK_EQ_INT(omendb_delete_batch(pressure.docs, NULL, 600, ids, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(pressure.db), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(pressure.db, NULL, NULL), OMENDB_OK);
    CHECK(!compact_has_settled(pressure_collection(), 1700));
    CHECK_EQ_INT(pressure_put(5000, 200), OMENDB_OK);
    CHECK_EQ_INT(pressure_look(), 1); /* fewer than before: not quiet */
    CHECK(!compact_has_settled(pressure_collection(), 1900));
    CHECK_EQ_INT(pressure_look(), 1);
    CHECK(compact_has_settled(pressure_collection(), 1900));
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST(what_was_merged_meanwhile_is_not_merged_for_searches)
{
    int more = 1;
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(0, 1500), OMENDB_OK);
    CHECK_EQ_INT(pressure_seal(1500, 300), OMENDB_OK);
    for (int i = 0; i < 2; i++)
        CHECK_EQ_INT(pressure_look(), 1); /* queued */
    CHECK_EQ_INT(omendb_optimize(pressure.db, NULL, NULL), OMENDB_OK);
    const omendb_stats before = pressure_stats();
    CHECK_EQ_INT(omendb_work(pressure.db, UINT64_MAX, &more), OMENDB_OK);
    CHECK_EQ_INT(pressure_stats().merges, before.merges);
    CHECK_EQ_INT(pressure_stats().checkpoints, before.checkpoints);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST(collections_that_wait_for_copies_are_all_looked_after)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *other = NULL;
    int more = 1;
    CHECK_EQ_INT(pressure_begin(0), OMENDB_OK);
    schema.dim = 2;
    CHECK_EQ_INT(omendb_collection_create(pressure.db, "other", &schema, &other), OMENDB_OK);
    work_notice_heat(pressure_collection());
    work_notice_heat(other->collection);
    CHECK_EQ_INT(omendb_work(pressure.db, UINT64_MAX, &more), OMENDB_OK);
    CHECK_EQ_INT(atomic_load(&pressure_collection()->queued[WORK_HEAT]), 0);
    CHECK_EQ_INT(atomic_load(&other->collection->queued[WORK_HEAT]), 0);
    omendb_collection_close(other);
    CHECK_EQ_INT(pressure_end(), OMENDB_OK);
}

TEST_MAIN(a_batch_that_does_not_fit_takes_nothing,
          records_that_replace_each_other_in_a_batch_need_little,
          where_nothing_can_be_given_back_nothing_is_tried_again,
          a_reader_asks_only_for_copies_and_only_in_time,
          whoever_lacks_memory_is_told_so_and_not_that_the_checkpoint_failed,
          a_checkpoint_that_frees_something_is_worth_another_try,
          merges_that_end_again_and_again_are_no_reason_to_try_for_ever,
          a_merge_is_waited_for_until_the_time_is_over, a_writer_of_nothing_is_not_slowed,
          rows_that_wait_for_a_merge_slow_writers_and_then_stop_them,
          a_writer_that_can_do_nothing_about_it_writes_on,
          a_log_of_twice_its_limit_stops_writers_who_are_told_why,
          memory_that_no_checkpoint_frees_in_time_stops_writers_who_are_told_why,
          a_writer_is_told_why_checkpoints_fail,
          a_checkpoint_that_failed_is_tried_again_when_the_log_has_grown,
          a_thread_leaves_a_long_job_for_a_checkpoint,
          who_waits_for_the_right_to_merge_can_be_stopped, a_large_collection_is_merged_alone,
          a_reader_does_no_work_of_writers, rows_of_a_dropped_collection_are_not_linked,
          opening_with_threads_survives_every_failing_allocation,
          what_a_merge_wrote_in_vain_goes_with_its_collection,
          a_checkpoint_that_is_refused_a_call_leaves_the_handle_writable,
          a_checkpoint_of_which_a_sync_fails_poisons_the_handle,
          what_a_merge_wrote_is_installed_though_memory_is_at_its_limit,
          an_empty_collection_has_nothing_to_settle,
          a_little_in_memory_is_not_sealed_for_the_sake_of_searches,
          a_collection_that_changed_has_to_settle_anew,
          what_was_merged_meanwhile_is_not_merged_for_searches,
          collections_that_wait_for_copies_are_all_looked_after)
