/* test_copies.c: copies of segments for speed that cannot be made, or not be taken back: a damaged
 * file, no memory at any place, searches that hold on to them, readers that have nothing else to
 * give. Answers stay the same, and what lacks memory is told whether there is some. */
#include "internals.h"

#include <pthread.h>

#include "crash_vfs.h"
#include "failing.h"
#include "support.h"
#include "test.h"

#define COPIES_DIM  1024
#define COPIES_ROWS 4200 /* enough for more than 4 MiB of codes, and for a curve */

static struct {
    struct crash_fs *fs;
    omendb *db;
    omendb_collection *docs;
    _Atomic uint64_t told;
} copies;

static void copies_log(void *context, int code, const char *line)
{
    (void)context;
    atomic_fetch_add(&copies.told, code == OMENDB_CORRUPT && strstr(line, "a copy for speed"));
}

static int copies_open(int read_only)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.vfs = &copies.fs->vfs;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.read_only = (uint32_t)read_only;
    options.wal_limit = options.tail_limit = UINT64_C(1) << 30;
    options.allocator = &failing_allocator;
    options.log = copies_log;
    const int status = omendb_open("/db", &options, &copies.db);
    return status != OMENDB_OK ? status
                               : omendb_collection_open(copies.db, "docs", NULL, &copies.docs);
}

static void copies_vector(uint64_t id, float *vector)
{
    struct support_random random = {id};
    memset(vector, 0, COPIES_DIM * sizeof *vector);
    for (int i = 0; i < 9; i++)
        vector[support_below(&random, COPIES_DIM)] = (float)(1 + support_below(&random, 9));
}

static int copies_put(uint64_t first, uint64_t count)
{
    static float vectors[1050 * COPIES_DIM];
    static uint64_t ids[1050];
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = first + i;
        copies_vector(first + i, vectors + i * COPIES_DIM);
    }
    return omendb_put_batch(copies.docs, NULL, (size_t)count, ids, vectors, OMENDB_F32, NULL);
}

/* One segment with a graph and a curve, made once: each test begins with the same files. */
static struct crash_fs *copies_first;

static int copies_make(void)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    copies_first = crash_fs_create(0);
    options.vfs = &copies_first->vfs;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.wal_limit = options.tail_limit = UINT64_C(1) << 30;
    schema.dim = COPIES_DIM;
    schema.M = 4;
    schema.ef_construction = 8;
    int status = omendb_open("/db", &options, &copies.db);
    if (status == OMENDB_OK)
        status = omendb_collection_create(copies.db, "docs", &schema, &copies.docs);
    for (uint64_t i = 0; i < 4 && status == OMENDB_OK; i++)
        status = copies_put(i * 1050, 1050);
    if (status == OMENDB_OK)
        status = omendb_optimize(copies.db, NULL, NULL);
    omendb_collection_close(copies.docs);
    const int closed = omendb_close(copies.db);
    return status == OMENDB_OK ? closed : status;
}

static int copies_begin(int read_only)
{
    int status = copies_first == NULL ? copies_make() : OMENDB_OK;
    memset(&copies, 0, sizeof copies);
    atomic_store(&failing_after, -1);
    copies.fs = crash_fs_copy(copies_first);
    if (status == OMENDB_OK)
        status = copies_open(read_only);
    return status == OMENDB_OK ? omendb_work(copies.db, UINT64_MAX, NULL) : status;
}

static int copies_end(void)
{
    omendb_collection_close(copies.docs);
    const int status = omendb_close(copies.db);
    const int64_t held = copies.fs->open_handles + copies.fs->maps;
    crash_fs_destroy(copies.fs);
    return status == OMENDB_OK && held != 0 ? OMENDB_MISUSE : status;
}

/* As so many searches would have it. */
static void copies_ask(void)
{
    struct version *version = version_acquire(copies.docs->collection);
    for (uint32_t i = 0; i < version->segment_count; i++)
        atomic_store(&version->segments[i]->walks, SEGMENT_WALKS_TO_HEAT);
    version_release(version);
    work_notice_heat(copies.docs->collection);
}

static uint64_t copies_bytes(void)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    return omendb_collection_get_stats(copies.docs, &stats) == OMENDB_OK ? stats.hot_bytes
                                                                         : UINT64_MAX;
}

/* A digest of the answers to some questions. */
static uint64_t copies_answers(void)
{
    omendb_query query = OMENDB_QUERY_INIT;
    float vector[COPIES_DIM], distances[5];
    uint64_t ids[5], digest = 1;
    size_t count;
    query.vector = vector;
    query.k = 5;
    for (uint64_t i = 0; i < 5; i++) {
        copies_vector(100000 + i, vector);
        if (omendb_search(copies.docs, NULL, &query, ids, distances, &count) != OMENDB_OK)
            return 0;
        digest = support_hash(ids, count * sizeof *ids, digest);
    }
    return digest;
}

TEST(a_damaged_segment_is_not_copied_and_the_log_says_so)
{
    CHECK_EQ_INT(copies_begin(0), OMENDB_OK);
    CHECK_EQ_INT(copies_put(10000, 10), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(copies.db), OMENDB_OK); /* a second segment */
    CHECK_EQ_INT(omendb_work(copies.db, UINT64_MAX, NULL), OMENDB_OK);
    struct version *version = version_acquire(copies.docs->collection);
    CHECK_EQ_INT(version->segment_count, 2);
    const struct graph_view *view = &version->segments[0]->graph;
    if (version->segments[1]->info.rows > version->segments[0]->info.rows)
        view = &version->segments[1]->graph;
    CHECK_EQ_INT(view->count, COPIES_ROWS);
    uint8_t *byte = (uint8_t *)(uintptr_t)(view->file->base + view->vectors_offset + 100);
    *byte ^= 1;
    version_release(version);
    copies_ask();
    CHECK_EQ_INT(omendb_work(copies.db, UINT64_MAX, NULL), OMENDB_CORRUPT);
    CHECK_EQ_INT(atomic_load(&copies.told), 1);
    CHECK_EQ_INT(copies_bytes(), 0);
    CHECK_EQ_INT(atomic_load(&copies.db->memory.spare), 0);
    *byte ^= 1;
    CHECK_EQ_INT(copies_end(), OMENDB_OK);
}

TEST(a_copy_that_lacks_memory_at_any_place_is_put_off)
{
    int64_t after = 0;
    CHECK_EQ_INT(copies_begin(0), OMENDB_OK);
    const uint64_t answers = copies_answers();
    CHECK(answers != 0);
    for (; copies_bytes() == 0; after++) {
        CHECK(after < 100);
        const uint64_t used = atomic_load(&copies.db->memory.used);
        copies_ask();
        atomic_store(&failing_after, after);
        CHECK_EQ_INT(omendb_work(copies.db, UINT64_MAX, NULL), OMENDB_OK);
        atomic_store(&failing_after, -1);
        if (copies_bytes() == 0)
            CHECK_EQ_INT(atomic_load(&copies.db->memory.used), used);
        CHECK_EQ_INT(copies_answers() == answers, 1);
    }
    CHECK(after > 2);
    /* one that is there is not made again */
    const uint64_t used = atomic_load(&copies.db->memory.used);
    work_notice_heat(copies.docs->collection);
    CHECK_EQ_INT(omendb_work(copies.db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK_EQ_INT(atomic_load(&copies.db->memory.used), used);
    CHECK_EQ_INT(copies_end(), OMENDB_OK);
}

/* Not even where there would be some, but more than half of the limit. */
TEST(memory_that_is_gone_since_a_copy_was_asked_for_is_not_taken)
{
    CHECK_EQ_INT(copies_begin(0), OMENDB_OK);
    const uint64_t used = atomic_load(&copies.db->memory.used);
    const uint64_t limits[] = {used + 1000, used + COPIES_ROWS * COPIES_DIM * 2};
    for (size_t i = 0; i < 2; i++) {
        copies_ask();
        copies.db->memory.limit = limits[i];
        CHECK_EQ_INT(omendb_work(copies.db, UINT64_MAX, NULL), OMENDB_OK);
        CHECK_EQ_INT(copies_bytes(), 0);
        copies.db->memory.limit = 0;
    }
    copies_ask();
    CHECK_EQ_INT(omendb_work(copies.db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK(copies_bytes() != 0);
    CHECK_EQ_INT(copies_end(), OMENDB_OK);
}

/* A search under way keeps its copy, and is not waited for for long. */
TEST(a_copy_that_a_search_holds_is_no_memory_yet)
{
    CHECK_EQ_INT(copies_begin(0), OMENDB_OK);
    copies_ask();
    CHECK_EQ_INT(omendb_work(copies.db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK(copies_bytes() != 0);
    struct version *version = version_acquire(copies.docs->collection);
    CHECK(!hot_give_back(copies.db));
    CHECK(hot_may_pause(copies.db));
    CHECK_EQ_INT(copies_bytes(), 0); /* nobody else finds it */
    version_release(version);
    CHECK(!hot_may_pause(copies.db));
    CHECK_EQ_INT(copies_end(), OMENDB_OK);
}

/* Of two segments one has a copy, and a snapshot keeps the beginnings of its rows; a new handle of
 * it cannot always be had. */
TEST(a_copy_is_kept_where_there_is_no_memory_to_let_it_go)
{
    omendb_txn *snapshot = NULL;
    uint64_t digest = 0;
    int64_t after = 0;
    CHECK_EQ_INT(copies_begin(0), OMENDB_OK);
    CHECK_EQ_INT(copies_put(10000, 10), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(copies.db), OMENDB_OK);
    const uint64_t answers = copies_answers();
    CHECK_EQ_INT(omendb_work(copies.db, UINT64_MAX, NULL), OMENDB_OK);
    copies_ask();
    CHECK_EQ_INT(omendb_work(copies.db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK(copies_bytes() != 0);
    for (; copies_bytes() != 0; after++) {
        CHECK(after < 100);
        atomic_store(&failing_after, after);
        (void)hot_give_back(copies.db);
        atomic_store(&failing_after, -1);
        CHECK(copies_answers() == answers);
    }
    CHECK(after > 2);
    CHECK_EQ_INT(atomic_load(&copies.db->memory.spare), 0);
    /* with beginnings: a segment that is younger than the snapshot */
    CHECK_EQ_INT(omendb_txn_begin(copies.db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    CHECK_EQ_INT(copies_put(20000, 1050), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(copies.db, NULL, NULL), OMENDB_OK);
    const uint64_t more_answers = copies_answers();
    copies_ask();
    CHECK_EQ_INT(omendb_work(copies.db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK(copies_bytes() != 0);
    CHECK(hot_give_back(copies.db));
    CHECK_EQ_INT(copies_bytes(), 0);
    CHECK(copies_answers() == more_answers);
    CHECK_EQ_INT(omendb_count(copies.docs, snapshot, &digest), OMENDB_OK);
    CHECK_EQ_INT(digest, COPIES_ROWS + 10);
    omendb_txn_rollback(snapshot);
    CHECK_EQ_INT(omendb_count(copies.docs, NULL, &digest), OMENDB_OK);
    CHECK_EQ_INT(digest, COPIES_ROWS + 10 + 1050);
    CHECK_EQ_INT(copies_end(), OMENDB_OK);
}

TEST(a_reader_that_lacks_memory_gives_its_copies)
{
    struct work_wait wait = {0};
    CHECK_EQ_INT(copies_begin(1), OMENDB_OK);
    copies_ask();
    CHECK_EQ_INT(omendb_work(copies.db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK(copies_bytes() != 0);
    copies.db->memory.limit = UINT64_C(1) << 30;
    copies.db->stall_timeout_us = 1000000000;
    CHECK_EQ_INT(work_relieve(copies.db, &wait), 1);
    CHECK_EQ_INT(copies_bytes(), 0);
    CHECK_EQ_INT(work_relieve(copies.db, &wait), 0);
    CHECK_EQ_INT(copies_end(), OMENDB_OK);
    crash_fs_destroy(copies_first);
}

TEST_MAIN(a_damaged_segment_is_not_copied_and_the_log_says_so,
          a_copy_that_lacks_memory_at_any_place_is_put_off,
          memory_that_is_gone_since_a_copy_was_asked_for_is_not_taken,
          a_copy_that_a_search_holds_is_no_memory_yet,
          a_copy_is_kept_where_there_is_no_memory_to_let_it_go,
          a_reader_that_lacks_memory_gives_its_copies)
