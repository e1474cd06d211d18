/* test_sessions.c: programs that open, write a little and close, again and again.
 *
 * Their rows are checkpointed before they are in a graph, and a merge that takes longer than the
 * program lives is begun anew by the next one. */
#define _POSIX_C_SOURCE 200809L
#include "omendb.h"
#include "support.h"
#include "test.h"

#include <sys/stat.h>

enum { SESSION_DIM = 32, SESSION_ROWS = 3000, SESSION_BASE = 20000, SESSION_TAIL = 1 << 20 };

static char session_path[4096];

/* A new place. */
static void session_begin(void)
{
    snprintf(session_path, sizeof session_path, "%s", support_path("sessions"));
}

static int session_open(omendb **db, omendb_collection **collection)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.threads = 0;
    options.tail_limit = SESSION_TAIL;
    options.sync = OMENDB_SYNC_OFF;
    schema.dim = SESSION_DIM;
    schema.M = 4;
    schema.ef_construction = 16;
    int code = omendb_open(session_path, &options, db);
    return code != OMENDB_OK ? code
                             : omendb_collection_open_or_create(*db, "c", &schema, collection);
}

static int session_add(omendb_collection *collection, uint64_t first, size_t count)
{
    static float vectors[SESSION_ROWS * SESSION_DIM];
    int code = OMENDB_OK;
    for (size_t done = 0; done < count && code == OMENDB_OK; done += SESSION_ROWS) {
        size_t rows = count - done < SESSION_ROWS ? count - done : SESSION_ROWS;
        for (size_t i = 0; i < rows; i++)
            support_vector(first + done + i, SESSION_DIM, vectors + i * SESSION_DIM);
        code = omendb_add_batch(collection, NULL, rows, NULL, vectors, OMENDB_F32, NULL);
    }
    return code;
}

static int session_count_progress(void *context, uint64_t done, uint64_t total)
{
    uint64_t *calls = context;
    ++*calls;
    return done > total || total == 0;
}

struct session_progress {
    uint64_t calls, done, total;
    int fell; /* `done` was less than before, or `total` another one */
};

static int session_watch_progress(void *context, uint64_t done, uint64_t total)
{
    struct session_progress *progress = context;
    progress->fell = progress->fell || done < progress->done || done > total ||
                     (progress->calls != 0 && total != progress->total);
    progress->calls++;
    progress->done = done;
    progress->total = total;
    return 0;
}

TEST(the_progress_of_optimize_never_falls)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL, *other = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    session_begin();
    CHECK_EQ_INT(session_open(&db, &collection), OMENDB_OK);
    schema.dim = SESSION_DIM;
    schema.M = 4;
    schema.ef_construction = 16;
    CHECK_EQ_INT(omendb_collection_create(db, "d", &schema, &other), OMENDB_OK);
    /* First built in bulk, then kept, extended and refined. */
    for (uint64_t rows = SESSION_BASE, all = 0; rows >= SESSION_BASE / 4; rows /= 4) {
        struct session_progress progress = {0, 0, 0, 0};
        CHECK_EQ_INT(session_add(collection, all, rows), OMENDB_OK);
        CHECK_EQ_INT(session_add(other, all, rows), OMENDB_OK);
        all += rows;
        CHECK_EQ_INT(omendb_optimize(db, session_watch_progress, &progress), OMENDB_OK);
        CHECK(progress.calls > 2 && !progress.fell);
        CHECK_EQ_INT(progress.total, 2 * all);
        CHECK_EQ_INT(progress.done, 2 * all);
    }
    omendb_collection_close(collection);
    omendb_collection_close(other);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(rows_of_short_sessions_get_a_graph_without_the_large_segment)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    uint64_t calls = 0;
    int more;
    session_begin();
    CHECK_EQ_INT(session_open(&db, &collection), OMENDB_OK);
    CHECK_EQ_INT(session_add(collection, 0, SESSION_BASE), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, session_count_progress, &calls), OMENDB_OK);
    CHECK(calls != 0);
    for (uint64_t session = 0; session < 6; session++) {
        CHECK_EQ_INT(session_add(collection, SESSION_BASE + session * SESSION_ROWS, SESSION_ROWS),
                     OMENDB_OK);
        omendb_collection_close(collection);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        CHECK_EQ_INT(session_open(&db, &collection), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_collection_get_stats(collection, &stats), OMENDB_OK);
    CHECK(stats.unindexed_rows > 2 * SESSION_TAIL / (SESSION_DIM * sizeof(float)));
    for (more = 1; more && stats.unindexed_rows != 0;) {
        CHECK_EQ_INT(omendb_work(db, 0, &more), OMENDB_OK);
        CHECK_EQ_INT(omendb_collection_get_stats(collection, &stats), OMENDB_OK);
    }
    CHECK_EQ_INT(stats.unindexed_rows, 0);
    CHECK_EQ_INT(stats.segments, 2);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

static uint64_t session_log_bytes(void)
{
    uint64_t bytes = 0;
    for (uint64_t number = 1; number < 100; number++) {
        char path[4200];
        struct stat status;
        snprintf(path, sizeof path, "%.4000s/wal-%llu", session_path, (unsigned long long)number);
        if (stat(path, &status) == 0)
            bytes += (uint64_t)status.st_size;
    }
    return bytes;
}

TEST(a_closed_database_keeps_no_space_for_a_log)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    session_begin();
    CHECK_EQ_INT(session_open(&db, &collection), OMENDB_OK);
    CHECK_EQ_INT(session_add(collection, 1000000, SESSION_ROWS), OMENDB_OK);
    const uint64_t open_bytes = session_log_bytes();
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK(open_bytes >= SESSION_ROWS * SESSION_DIM * sizeof(float));
    CHECK(session_log_bytes() <= 4096);
}

TEST_MAIN(the_progress_of_optimize_never_falls,
          rows_of_short_sessions_get_a_graph_without_the_large_segment,
          a_closed_database_keeps_no_space_for_a_log)
