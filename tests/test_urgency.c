/* test_urgency.c: of what waits in the background, what is done first. A copy takes milliseconds,
 * so it goes before everything but a checkpoint; linking goes before merges, as what is not linked
 * is compared row by row, but for a collection that is searched while another thread can link:
 * there each segment less is a graph less for each search to walk.
 *
 * The threads of the background have not begun and never do: the test does their units, one by one,
 * and tells from what changed which one it was. The clock stands still. */
#include "internals.h"

#include <pthread.h>

#include "crash_vfs.h"
#include "support.h"
#include "test.h"

#define URGENCY_DIM 1024
#define URGENCY_COPIED                                                                             \
    4200                   /* rows of bytes: a little more than the 4 MiB that are worth a copy    \
                            */
#define URGENCY_SEALED 300 /* without a graph, in a segment */
#define URGENCY_ADDED  200 /* in memory; linked in one unit */

static struct {
    struct crash_fs *fs;
    omendb *db;
    omendb_collection *copied; /* one segment with a graph */
    omendb_collection *rows;   /* what is to be linked and merged */
    uint64_t now_us;
} urgency;

static uint64_t urgency_now(void *context)
{
    (void)context;
    return urgency.now_us;
}

static int urgency_put(omendb_collection *collection, uint64_t first, uint64_t count)
{
    static float vectors[URGENCY_COPIED * URGENCY_DIM];
    static uint64_t ids[URGENCY_COPIED];
    for (uint64_t i = 0; i < count; i++) {
        struct support_random random = {first + i};
        ids[i] = first + i;
        for (uint32_t at = 0; at < URGENCY_DIM; at++)
            vectors[i * URGENCY_DIM + at] = (float)support_below(&random, 9);
    }
    return omendb_put_batch(collection, NULL, (size_t)count, ids, vectors, OMENDB_F32, NULL);
}

/* A background of so many threads that have not begun; nothing waits in it. */
static int urgency_renew_background(int32_t threads)
{
    work_stop(urgency.db);
    work_destroy(urgency.db);
    atomic_store(&urgency.db->stopping, 0);
    return work_create(urgency.db, threads);
}

static int urgency_open(struct crash_fs *fs)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    memset(&urgency, 0, sizeof urgency);
    urgency.now_us = 10000000;
    urgency.fs = fs;
    fs->vfs.now_us = urgency_now;
    options.vfs = &fs->vfs;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.wal_limit = options.tail_limit = UINT64_C(1) << 30; /* nothing happens unasked */
    schema.dim = URGENCY_DIM;
    schema.scalar = OMENDB_I8;
    schema.M = 4;
    schema.ef_construction = 8;
    int status = omendb_open("/db", &options, &urgency.db);
    if (status == OMENDB_OK)
        status = omendb_collection_open_or_create(urgency.db, "copied", &schema, &urgency.copied);
    if (status == OMENDB_OK)
        status = omendb_collection_open_or_create(urgency.db, "rows", &schema, &urgency.rows);
    return status;
}

static int urgency_close(void)
{
    omendb_collection_close(urgency.copied);
    omendb_collection_close(urgency.rows);
    return omendb_close(urgency.db);
}

/* Each test begins with the same files; they are made once. */
static struct crash_fs *urgency_first;

static int urgency_make(void)
{
    urgency_first = crash_fs_create(0);
    int status = urgency_open(urgency_first);
    if (status == OMENDB_OK)
        status = urgency_put(urgency.copied, 0, URGENCY_COPIED);
    if (status == OMENDB_OK)
        status = omendb_optimize(urgency.db, NULL, NULL);
    if (status == OMENDB_OK)
        status = urgency_put(urgency.rows, 0, URGENCY_SEALED);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(urgency.db);
    const int closed = urgency_close();
    return status == OMENDB_OK ? closed : status;
}

static int urgency_begin(int32_t threads)
{
    int status = urgency_first == NULL ? urgency_make() : OMENDB_OK;
    if (status == OMENDB_OK)
        status = urgency_open(crash_fs_copy(urgency_first));
    return status == OMENDB_OK ? urgency_renew_background(threads) : status;
}

static int urgency_end(void)
{
    const int status = urgency_close();
    crash_fs_destroy(urgency.fs);
    return status;
}

/* ------------------------------------------------------------------------------------------------
 * what waits */

static int urgency_want_linking(void)
{
    return urgency_put(urgency.rows, 10000, URGENCY_ADDED);
}

static int urgency_want_merge(void)
{
    struct collection *rows = urgency.rows->collection;
    work_notice_merge(rows);
    return atomic_load(&rows->queued[WORK_MERGE]) ? OMENDB_OK : OMENDB_MISUSE;
}

/* As if it had been walked often enough. */
static void urgency_want_copy(void)
{
    struct collection *copied = urgency.copied->collection;
    struct version *version = version_acquire(copied);
    for (uint32_t i = 0; i < version->segment_count; i++)
        atomic_store(&version->segments[i]->walks, SEGMENT_WALKS_TO_HEAT);
    version_release(version);
    work_notice_heat(copied);
}

/* ------------------------------------------------------------------------------------------------
 * what is done */

struct urgency_state {
    omendb_stats stats;
    omendb_collection_stats copied, rows;
};

static struct urgency_state urgency_look(void)
{
    struct urgency_state state = {OMENDB_STATS_INIT, OMENDB_COLLECTION_STATS_INIT,
                                  OMENDB_COLLECTION_STATS_INIT};
    omendb_get_stats(urgency.db, &state.stats);
    omendb_collection_get_stats(urgency.copied, &state.copied);
    omendb_collection_get_stats(urgency.rows, &state.rows);
    return state;
}

/* Which unit it was: one letter. '?': none that is looked at here, as a look for dead bytes. */
static char urgency_tell(const struct urgency_state *before, const struct urgency_state *after)
{
    if (after->stats.checkpoints != before->stats.checkpoints)
        return 'C';
    if (after->stats.merges != before->stats.merges)
        return 'M';
    if (after->copied.hot_bytes != before->copied.hot_bytes)
        return 'H';
    return after->rows.unindexed_rows != before->rows.unindexed_rows ? 'L' : '?';
}

/* The units in the order in which they are done until nothing waits: C checkpoint, H copy in huge
 * pages, L linking, M merge. Each that is done several times in a row is named once. */
static const char *urgency_order(void)
{
    static char order[64];
    size_t length = 0;
    for (int did = 1, steps = 0; did && steps < 1000; steps++) {
        const struct urgency_state before = urgency_look();
        if (work_step(urgency.db, &did) != OMENDB_OK)
            return "an error";
        const struct urgency_state after = urgency_look();
        const char unit = urgency_tell(&before, &after);
        if (unit != '?' && (length == 0 || order[length - 1] != unit) && length + 1 < sizeof order)
            order[length++] = unit;
    }
    order[length] = '\0';
    return order;
}

/* ------------------------------------------------------------------------------------------------
 * the order */

TEST(while_another_thread_links_a_searched_collection_is_merged_first)
{
    CHECK_EQ_INT(urgency_begin(2), OMENDB_OK);
    CHECK_EQ_INT(urgency_want_linking(), OMENDB_OK);
    CHECK_EQ_INT(urgency_want_merge(), OMENDB_OK);
    work_notice_searching(urgency.rows->collection);
    CHECK_EQ_STR(urgency_order(), "ML");
    CHECK_EQ_INT(urgency_end(), OMENDB_OK);
}

/* It would merge for long while what is added is compared row by row. */
TEST(a_thread_that_is_alone_links_before_it_merges)
{
    for (int32_t threads = 0; threads < 2; threads++) {
        CHECK_EQ_INT(urgency_begin(threads), OMENDB_OK);
        CHECK_EQ_INT(urgency_want_linking(), OMENDB_OK);
        CHECK_EQ_INT(urgency_want_merge(), OMENDB_OK);
        work_notice_searching(urgency.rows->collection);
        CHECK_EQ_STR(urgency_order(), "LM");
        CHECK_EQ_INT(urgency_end(), OMENDB_OK);
    }
}

TEST(what_nobody_searches_is_linked_before_it_is_merged)
{
    for (int searched = 0; searched < 2; searched++) {
        CHECK_EQ_INT(urgency_begin(2), OMENDB_OK);
        CHECK_EQ_INT(urgency_want_linking(), OMENDB_OK);
        CHECK_EQ_INT(urgency_want_merge(), OMENDB_OK);
        if (searched) /* a second ago */
            work_notice_searching(urgency.rows->collection);
        urgency.now_us += 1000000;
        CHECK_EQ_STR(urgency_order(), "LM");
        CHECK_EQ_INT(urgency_end(), OMENDB_OK);
    }
}

/* Beside a writer there is always something to link, and a merge takes seconds. */
TEST(copies_are_made_before_anything_is_linked_or_merged)
{
    for (int searched = 0; searched < 2; searched++) {
        CHECK_EQ_INT(urgency_begin(2), OMENDB_OK);
        CHECK_EQ_INT(urgency_want_linking(), OMENDB_OK);
        CHECK_EQ_INT(urgency_want_merge(), OMENDB_OK);
        urgency_want_copy();
        if (searched)
            work_notice_searching(urgency.rows->collection);
        CHECK_EQ_STR(urgency_order(), searched ? "HML" : "HLM");
        CHECK_EQ_INT(urgency_end(), OMENDB_OK);
    }
}

/* Writers stop at twice that limit. What the checkpoint writes is merged, not linked. */
TEST(a_checkpoint_of_a_long_log_goes_before_all_else)
{
    CHECK_EQ_INT(urgency_begin(2), OMENDB_OK);
    CHECK_EQ_INT(urgency_want_linking(), OMENDB_OK);
    CHECK_EQ_INT(urgency_want_merge(), OMENDB_OK);
    urgency_want_copy();
    work_notice_searching(urgency.rows->collection);
    urgency.db->wal_limit = atomic_load(&urgency.db->log_bytes);
    CHECK_EQ_STR(urgency_order(), "CHM");
    CHECK_EQ_INT(urgency_end(), OMENDB_OK);
}

/* One thread has the right to merge: the others go on with what comes after. */
TEST(while_one_thread_merges_another_links)
{
    CHECK_EQ_INT(urgency_begin(2), OMENDB_OK);
    CHECK_EQ_INT(urgency_want_linking(), OMENDB_OK);
    CHECK_EQ_INT(urgency_want_merge(), OMENDB_OK);
    work_notice_searching(urgency.rows->collection);
    CHECK_EQ_INT(work_merge_begin(urgency.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_STR(urgency_order(), "L");
    work_merge_end(urgency.db);
    CHECK_EQ_STR(urgency_order(), "M");
    CHECK_EQ_INT(urgency_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * shares of a job */

enum { URGENCY_SHARES = 5 };

static struct {
    char done[URGENCY_SHARES];
    const char *first, *then;
    int status;
} urgency_job;

/* The first share is one that never ends: meanwhile the test is the thread of the background. The
 * second asks for linking in its midst. */
static int urgency_share(void *context, uint64_t index)
{
    (void)context;
    urgency_job.done[index] = 1;
    if (index == 1)
        urgency_job.status = urgency_want_linking();
    if (index != 0)
        return OMENDB_OK;
    int did = 0;
    if (work_step(urgency.db, &did) != OMENDB_OK || !did)
        return OMENDB_MISUSE;
    urgency_job.first = urgency_job.done[1] && !urgency_job.done[2] ? "left" : "stayed";
    urgency_job.then = urgency_order();
    return OMENDB_OK;
}

TEST(a_thread_leaves_a_long_job_for_linking_and_merges_when_it_is_over)
{
    memset(&urgency_job, 0, sizeof urgency_job);
    CHECK_EQ_INT(urgency_begin(2), OMENDB_OK);
    CHECK_EQ_INT(urgency_want_merge(), OMENDB_OK);
    CHECK_EQ_INT(work_parallel(urgency.db, URGENCY_SHARES, urgency_share, NULL), OMENDB_OK);
    CHECK_EQ_INT(urgency_job.status, OMENDB_OK);
    CHECK_EQ_STR(urgency_job.first, "left");
    CHECK_EQ_STR(urgency_job.then, "LM");
    for (int i = 0; i < URGENCY_SHARES; i++)
        CHECK(urgency_job.done[i]);
    CHECK_EQ_INT(urgency_end(), OMENDB_OK);
    crash_fs_destroy(urgency_first);
}

TEST_MAIN(while_another_thread_links_a_searched_collection_is_merged_first,
          a_thread_that_is_alone_links_before_it_merges,
          what_nobody_searches_is_linked_before_it_is_merged,
          copies_are_made_before_anything_is_linked_or_merged,
          a_checkpoint_of_a_long_log_goes_before_all_else, while_one_thread_merges_another_links,
          a_thread_leaves_a_long_job_for_linking_and_merges_when_it_is_over)
