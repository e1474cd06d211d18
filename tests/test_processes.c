/* test_processes.c: what other processes, and forked ones, may do with a database.
 *
 * A reader in another process follows a writer that commits, checkpoints and merges: it must never
 * see half a batch, never go back, and see everything that was acknowledged before its refresh. */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>

#include "support.h"
#include "test.h"

#define PROCESSES_DIM   6
#define PROCESSES_BATCH 25

static char processes_path[4096];
static int32_t processes_threads = 1;

static int processes_open(const char *path, int read_only, omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.read_only = (uint32_t)read_only;
    options.must_exist = (uint32_t)read_only;
    options.wal_limit = 64 * 1024;
    options.threads = processes_threads;
    return omendb_open(path, &options, db);
}

static int processes_create(const char *name, omendb **db, omendb_collection **collection)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = PROCESSES_DIM;
    schema.M = 6;
    schema.ef_construction = 24;
    snprintf(processes_path, sizeof processes_path, "%s", support_path(name));
    const int status = processes_open(processes_path, 0, db);
    return status != OMENDB_OK ? status : omendb_collection_create(*db, "c", &schema, collection);
}

/* Round n: a batch in which component 0 of each vector is n. */
static int processes_put_round(omendb_collection *collection, uint64_t round)
{
    float vectors[PROCESSES_BATCH * PROCESSES_DIM];
    uint64_t ids[PROCESSES_BATCH];
    for (uint64_t i = 0; i < PROCESSES_BATCH; i++) {
        ids[i] = i * 3;
        support_vector(i, PROCESSES_DIM, vectors + i * PROCESSES_DIM);
        vectors[i * PROCESSES_DIM] = (float)round;
    }
    return omendb_put_batch(collection, NULL, PROCESSES_BATCH, ids, vectors, OMENDB_F32, NULL);
}

/* The round that is seen; -1: half a batch or an error. */
static int64_t processes_read_round(omendb_collection *collection)
{
    float vector[PROCESSES_DIM];
    int64_t round = -1;
    uint64_t seen = 0;
    omendb_rows *rows = NULL;
    int status = omendb_scan(collection, NULL, 0, UINT64_MAX - 1, &rows);
    while (status == OMENDB_OK) {
        status = omendb_rows_next(rows, NULL, OMENDB_F32, vector);
        if (status != OMENDB_OK)
            break;
        if (seen++ > 0 && (int64_t)vector[0] != round) {
            fprintf(stderr, "    half a batch: rounds %lld and %lld\n", (long long)round,
                    (long long)vector[0]);
            status = OMENDB_CORRUPT;
        }
        round = (int64_t)vector[0];
    }
    omendb_rows_close(rows);
    if (status == OMENDB_DONE && seen == PROCESSES_BATCH)
        return round;
    fprintf(stderr, "    %llu records, %s: %s\n", (unsigned long long)seen, omendb_strerror(status),
            omendb_errmsg());
    return -1;
}

/* A child that hangs is killed by its alarm. */
static pid_t processes_fork(void)
{
    const pid_t child = fork();
    if (child == 0)
        alarm(600);
    return child;
}

/* Runs `body` in a child; 0 where it returned 0. */
static int processes_in_child(int (*body)(void *argument), void *argument)
{
    int status = 0;
    const pid_t child = processes_fork();
    if (child == 0)
        _exit(body(argument));
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return 255;
    return WEXITSTATUS(status);
}

/* ------------------------------------------------------------------------------------------------
 * one writer */

static int processes_child_expects_busy(void *argument)
{
    omendb *db = argument;
    const int status = processes_open(processes_path, 0, &db);
    return status == OMENDB_BUSY && db == NULL && strlen(omendb_errmsg()) > 10 ? 0 : 1;
}

TEST(a_second_writer_gets_busy_at_once)
{
    omendb *db = NULL, *second = NULL;
    omendb_collection *collection = NULL;
    CHECK_EQ_INT(processes_create("busy", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_in_child(processes_child_expects_busy, NULL), 0);
    CHECK_EQ_INT(processes_open(processes_path, 0, &second), OMENDB_BUSY);
    CHECK(second == NULL);
    CHECK_EQ_INT(processes_put_round(collection, 1), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(processes_open(processes_path, 0, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* Waits for a byte; then expects what argument 2 says of opening for writing. */
static int processes_child_opens_when_told(void *argument)
{
    const int *plan = argument;
    char byte = 0;
    omendb *db = NULL;
    close(plan[1]);
    if (read(plan[0], &byte, 1) != 1)
        return 2;
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = 0; /* neither TSan nor qemu-user starts threads in a forked child */
    const int status = omendb_open(processes_path, &options, &db);
    const int closed = omendb_close(db);
    if (status == plan[2] && closed == OMENDB_OK)
        return 0;
    fprintf(stderr, "    opening: %s: %s\n", omendb_strerror(status), omendb_errmsg());
    return 1;
}

/* Starts that child; *tell is where the byte goes. */
static pid_t processes_start_opener(int expected, int *tell)
{
    int ends[2];
    if (pipe(ends) != 0)
        return -1;
    int plan[3] = {ends[0], ends[1], expected};
    const pid_t child = processes_fork();
    if (child == 0)
        _exit(processes_child_opens_when_told(plan));
    close(ends[0]);
    *tell = ends[1];
    return child;
}

static int processes_finish_opener(pid_t child, int tell)
{
    int status = 0;
    const int told = write(tell, "g", 1) == 1;
    close(tell);
    return told && waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status)
                                                                            : 255;
}

/* The child knows nothing of the parent's handle: only the lock of the file can tell it. */
TEST(a_writer_in_a_process_of_its_own_gets_busy)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int tell = -1;
    CHECK_EQ_INT(processes_create("stranger", &db, &collection), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    const pid_t child = processes_start_opener(OMENDB_BUSY, &tell);
    const int opened = processes_open(processes_path, 0, &db);
    const int result = processes_finish_opener(child, tell);
    const int closed = omendb_close(db);
    CHECK_EQ_INT(opened, OMENDB_OK);
    CHECK_EQ_INT(result, 0);
    CHECK_EQ_INT(closed, OMENDB_OK);
}

/* The child was forked from the owner, who then closed: nothing is open any more. */
TEST(a_forked_child_may_open_what_its_parent_closed)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int tell = -1;
    CHECK_EQ_INT(processes_create("heir", &db, &collection), OMENDB_OK);
    const pid_t child = processes_start_opener(OMENDB_OK, &tell);
    omendb_collection_close(collection);
    const int closed = omendb_close(db);
    const int result = processes_finish_opener(child, tell);
    CHECK_EQ_INT(closed, OMENDB_OK);
    CHECK_EQ_INT(result, 0);
}

TEST(another_name_of_the_same_directory_is_the_same_database)
{
    char other[4200];
    omendb *db = NULL, *second = NULL;
    omendb_collection *collection = NULL;
    CHECK_EQ_INT(processes_create("names", &db, &collection), OMENDB_OK);
    snprintf(other, sizeof other, "%s/../names", processes_path);
    CHECK_EQ_INT(processes_open(other, 0, &second), OMENDB_BUSY);
    snprintf(other, sizeof other, "%s/./", processes_path);
    CHECK_EQ_INT(processes_open(other, 0, &second), OMENDB_BUSY);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * fork */

struct processes_handles {
    omendb *db;
    omendb_collection *collection;
    omendb_txn *txn;
    omendb_rows *rows;
    omendb_pages *pages;
    omendb_facets *facets;
};

static int processes_misuse_progress(void *context, uint64_t done, uint64_t total)
{
    (void)context;
    (void)done;
    (void)total;
    return 0;
}

/* One public function on inherited handles. A void one answers OMENDB_MISUSE here. */
#define PROCESSES_CALL(name, expression)                                                           \
    static int processes_call_##name(struct processes_handles *on)                                 \
    {                                                                                              \
        (void)on;                                                                                  \
        return expression;                                                                         \
    }

static float processes_vectors[OMENDB_CALIBRATE_MIN * PROCESSES_DIM];
static uint64_t processes_numbers[16];
static omendb_record processes_record = OMENDB_RECORD_INIT;
static omendb_query processes_query = OMENDB_QUERY_INIT;
static omendb_schema processes_schema = OMENDB_SCHEMA_INIT;
static const char *processes_name = "d";
static omendb_stats processes_stats = OMENDB_STATS_INIT;
static omendb_collection_stats processes_collection_stats = OMENDB_COLLECTION_STATS_INIT;
static omendb_limits processes_limits = OMENDB_LIMITS_INIT;
static omendb_field processes_field = OMENDB_FIELD_INIT;
static omendb_collection *processes_made;
static omendb_txn *processes_begun;
static omendb_rows *processes_scanned;
static omendb_filter *processes_compiled;
static omendb_pages *processes_paged;
static omendb_facets *processes_counted;
static omendb_facet processes_facet = OMENDB_FACET_INIT;
static size_t processes_size;
static char processes_text[256];

PROCESSES_CALL(omendb_refresh, omendb_refresh(on->db))
PROCESSES_CALL(omendb_checkpoint, omendb_checkpoint(on->db))
PROCESSES_CALL(omendb_optimize, omendb_optimize(on->db, processes_misuse_progress, NULL))
PROCESSES_CALL(omendb_work, omendb_work(on->db, 1, NULL))
PROCESSES_CALL(omendb_backup, omendb_backup(on->db, "nowhere"))
PROCESSES_CALL(omendb_purge, omendb_purge(on->db, NULL))
PROCESSES_CALL(omendb_check, omendb_check(on->db, NULL, NULL, NULL))
PROCESSES_CALL(omendb_get_stats, omendb_get_stats(on->db, &processes_stats))
PROCESSES_CALL(omendb_collection_create,
               omendb_collection_create(on->db, "d", &processes_schema, &processes_made))
PROCESSES_CALL(omendb_collection_create_batch,
               omendb_collection_create_batch(on->db, 1, &processes_name, &processes_schema))
PROCESSES_CALL(omendb_collection_open, omendb_collection_open(on->db, "c", NULL, &processes_made))
PROCESSES_CALL(omendb_collection_open_or_create,
               omendb_collection_open_or_create(on->db, "d", &processes_schema, &processes_made))
PROCESSES_CALL(omendb_collection_drop, omendb_collection_drop(on->db, "c"))
PROCESSES_CALL(omendb_collection_name,
               omendb_collection_name(on->db, 0, processes_text, sizeof processes_text))
PROCESSES_CALL(omendb_collection_schema,
               omendb_collection_schema(on->collection, &processes_schema))
PROCESSES_CALL(omendb_collection_get_stats,
               omendb_collection_get_stats(on->collection, &processes_collection_stats))
PROCESSES_CALL(omendb_collection_set_limits,
               omendb_collection_set_limits(on->collection, &processes_limits))
PROCESSES_CALL(omendb_collection_get_limits,
               omendb_collection_get_limits(on->collection, &processes_limits))
PROCESSES_CALL(omendb_collection_declare, omendb_collection_declare(on->collection, 0, NULL, 0))
PROCESSES_CALL(omendb_collection_declaration,
               omendb_collection_declaration(on->collection, NULL, NULL))
PROCESSES_CALL(omendb_collection_field,
               omendb_collection_field(on->collection, 0, &processes_field, processes_text,
                                       sizeof processes_text))
PROCESSES_CALL(omendb_txn_begin, omendb_txn_begin(on->db, OMENDB_READ_ONLY, &processes_begun))
PROCESSES_CALL(omendb_txn_commit, omendb_txn_commit(on->txn))
PROCESSES_CALL(omendb_txn_prepare, omendb_txn_prepare(on->txn, "name"))
PROCESSES_CALL(omendb_commit_prepared, omendb_commit_prepared(on->db, "name"))
PROCESSES_CALL(omendb_rollback_prepared, omendb_rollback_prepared(on->db, "name"))
PROCESSES_CALL(omendb_forget_prepared, omendb_forget_prepared(on->db, "name"))
PROCESSES_CALL(omendb_prepared_name,
               omendb_prepared_name(on->db, 0, processes_text, sizeof processes_text, NULL))
PROCESSES_CALL(omendb_add, omendb_add(on->collection, NULL, &processes_record, NULL))
PROCESSES_CALL(omendb_add_batch, omendb_add_batch(on->collection, on->txn, 1, NULL,
                                                  processes_vectors, OMENDB_F32, NULL))
PROCESSES_CALL(omendb_put, omendb_put(on->collection, on->txn, &processes_record, NULL))
PROCESSES_CALL(omendb_put_batch,
               omendb_put_batch(on->collection, NULL, 1, NULL, processes_vectors, OMENDB_F32, NULL))
PROCESSES_CALL(omendb_delete, omendb_delete(on->collection, NULL, 0))
PROCESSES_CALL(omendb_delete_batch,
               omendb_delete_batch(on->collection, on->txn, 1, processes_numbers, NULL))
PROCESSES_CALL(omendb_get_batch,
               omendb_get_batch(on->collection, NULL, 1, processes_numbers, OMENDB_F32, NULL, NULL))
PROCESSES_CALL(omendb_get, omendb_get(on->collection, NULL, 0, OMENDB_F32, processes_vectors))
PROCESSES_CALL(omendb_count, omendb_count(on->collection, on->txn, processes_numbers))
PROCESSES_CALL(omendb_scan, omendb_scan(on->collection, NULL, 0, 9, &processes_scanned))
PROCESSES_CALL(omendb_rows_next, omendb_rows_next(on->rows, NULL, OMENDB_F32, NULL))
PROCESSES_CALL(omendb_add_records,
               omendb_add_records(on->collection, NULL, 1, &processes_record, NULL))
PROCESSES_CALL(omendb_put_records,
               omendb_put_records(on->collection, on->txn, 1, &processes_record, NULL))
PROCESSES_CALL(omendb_update, omendb_update(on->collection, NULL, 0, "{}"))
PROCESSES_CALL(omendb_find, omendb_find(on->collection, NULL, "key", NULL))
PROCESSES_CALL(omendb_delete_key, omendb_delete_key(on->collection, NULL, "key"))
PROCESSES_CALL(omendb_get_key,
               omendb_get_key(on->collection, NULL, 0, processes_text, sizeof processes_text, NULL))
PROCESSES_CALL(omendb_get_metadata,
               omendb_get_metadata(on->collection, NULL, 0, NULL, 0, processes_text,
                                   sizeof processes_text, NULL))
PROCESSES_CALL(omendb_count_matching,
               omendb_count_matching(on->collection, NULL, NULL, NULL, NULL, processes_numbers))
PROCESSES_CALL(omendb_delete_matching,
               omendb_delete_matching(on->collection, NULL, NULL, NULL, NULL, NULL))
PROCESSES_CALL(omendb_scan_matching,
               omendb_scan_matching(on->collection, NULL, NULL, 0, 9, &processes_scanned))
PROCESSES_CALL(omendb_rows_key,
               omendb_rows_key(on->rows, processes_text, sizeof processes_text, NULL))
PROCESSES_CALL(omendb_rows_metadata,
               omendb_rows_metadata(on->rows, NULL, 0, processes_text, sizeof processes_text, NULL))
PROCESSES_CALL(omendb_filter_compile, omendb_filter_compile(on->db, "TRUE", &processes_compiled))
PROCESSES_CALL(omendb_search, omendb_search(on->collection, NULL, &processes_query,
                                            processes_numbers, NULL, &processes_size))
PROCESSES_CALL(omendb_search_batch,
               omendb_search_batch(on->collection, NULL, &processes_query, processes_vectors, 1,
                                   processes_numbers, NULL, NULL))
PROCESSES_CALL(omendb_search_many, omendb_search_many(on->collection, NULL, &processes_query, 1,
                                                      processes_numbers, NULL, NULL))
PROCESSES_CALL(omendb_pages_open,
               omendb_pages_open(on->collection, NULL, &processes_query, &processes_paged))
PROCESSES_CALL(omendb_pages_next,
               omendb_pages_next(on->pages, 1, 0, processes_numbers, NULL, &processes_size))
PROCESSES_CALL(omendb_facets_open, omendb_facets_open(on->collection, NULL, NULL, NULL, NULL, "a",
                                                      0, &processes_counted))
PROCESSES_CALL(omendb_facets_next, omendb_facets_next(on->facets, &processes_facet))
PROCESSES_CALL(omendb_facets_totals, omendb_facets_totals(on->facets, NULL, NULL, NULL))
PROCESSES_CALL(omendb_calibrate, omendb_calibrate(on->collection, processes_vectors,
                                                  OMENDB_CALIBRATE_MIN, OMENDB_F32, NULL, NULL))
PROCESSES_CALL(omendb_close, omendb_close(on->db) == OMENDB_OK ? OMENDB_MISUSE : OMENDB_IOERR)
PROCESSES_CALL(omendb_release, (omendb_release(on->db), OMENDB_MISUSE))
PROCESSES_CALL(omendb_collection_close, (omendb_collection_close(on->collection), OMENDB_MISUSE))
PROCESSES_CALL(omendb_txn_rollback, (omendb_txn_rollback(on->txn), OMENDB_MISUSE))
PROCESSES_CALL(omendb_rows_close, (omendb_rows_close(on->rows), OMENDB_MISUSE))
PROCESSES_CALL(omendb_pages_close, (omendb_pages_close(on->pages), OMENDB_MISUSE))
PROCESSES_CALL(omendb_facets_close, (omendb_facets_close(on->facets), OMENDB_MISUSE))

#undef PROCESSES_CALL
#define PROCESSES_ROW(name)                                                                        \
    {                                                                                              \
#name, processes_call_##name                                                               \
    }

static const struct processes_call {
    const char *name;
    int (*call)(struct processes_handles *on);
} processes_calls[] = {
    PROCESSES_ROW(omendb_refresh),
    PROCESSES_ROW(omendb_checkpoint),
    PROCESSES_ROW(omendb_optimize),
    PROCESSES_ROW(omendb_work),
    PROCESSES_ROW(omendb_backup),
    PROCESSES_ROW(omendb_purge),
    PROCESSES_ROW(omendb_check),
    PROCESSES_ROW(omendb_get_stats),
    PROCESSES_ROW(omendb_collection_create),
    PROCESSES_ROW(omendb_collection_create_batch),
    PROCESSES_ROW(omendb_collection_open),
    PROCESSES_ROW(omendb_collection_open_or_create),
    PROCESSES_ROW(omendb_collection_drop),
    PROCESSES_ROW(omendb_collection_name),
    PROCESSES_ROW(omendb_collection_schema),
    PROCESSES_ROW(omendb_collection_get_stats),
    PROCESSES_ROW(omendb_collection_set_limits),
    PROCESSES_ROW(omendb_collection_get_limits),
    PROCESSES_ROW(omendb_collection_declare),
    PROCESSES_ROW(omendb_collection_declaration),
    PROCESSES_ROW(omendb_collection_field),
    PROCESSES_ROW(omendb_txn_begin),
    PROCESSES_ROW(omendb_txn_commit),
    PROCESSES_ROW(omendb_txn_prepare),
    PROCESSES_ROW(omendb_commit_prepared),
    PROCESSES_ROW(omendb_rollback_prepared),
    PROCESSES_ROW(omendb_forget_prepared),
    PROCESSES_ROW(omendb_prepared_name),
    PROCESSES_ROW(omendb_add),
    PROCESSES_ROW(omendb_add_batch),
    PROCESSES_ROW(omendb_put),
    PROCESSES_ROW(omendb_put_batch),
    PROCESSES_ROW(omendb_delete),
    PROCESSES_ROW(omendb_delete_batch),
    PROCESSES_ROW(omendb_get),
    PROCESSES_ROW(omendb_get_batch),
    PROCESSES_ROW(omendb_count),
    PROCESSES_ROW(omendb_scan),
    PROCESSES_ROW(omendb_rows_next),
    PROCESSES_ROW(omendb_add_records),
    PROCESSES_ROW(omendb_put_records),
    PROCESSES_ROW(omendb_update),
    PROCESSES_ROW(omendb_find),
    PROCESSES_ROW(omendb_delete_key),
    PROCESSES_ROW(omendb_get_key),
    PROCESSES_ROW(omendb_get_metadata),
    PROCESSES_ROW(omendb_count_matching),
    PROCESSES_ROW(omendb_delete_matching),
    PROCESSES_ROW(omendb_scan_matching),
    PROCESSES_ROW(omendb_rows_key),
    PROCESSES_ROW(omendb_rows_metadata),
    PROCESSES_ROW(omendb_filter_compile),
    PROCESSES_ROW(omendb_search),
    PROCESSES_ROW(omendb_search_batch),
    PROCESSES_ROW(omendb_search_many),
    PROCESSES_ROW(omendb_pages_open),
    PROCESSES_ROW(omendb_pages_next),
    PROCESSES_ROW(omendb_facets_open),
    PROCESSES_ROW(omendb_facets_next),
    PROCESSES_ROW(omendb_facets_totals),
    PROCESSES_ROW(omendb_calibrate),
    PROCESSES_ROW(omendb_close),
    PROCESSES_ROW(omendb_release),
    PROCESSES_ROW(omendb_collection_close),
    PROCESSES_ROW(omendb_txn_rollback),
    PROCESSES_ROW(omendb_rows_close),
    PROCESSES_ROW(omendb_pages_close),
    PROCESSES_ROW(omendb_facets_close),
};
#undef PROCESSES_ROW

#define PROCESSES_CALLS (sizeof processes_calls / sizeof processes_calls[0])

static const struct processes_call *processes_this_call;

static int processes_child_calls(void *argument)
{
    return processes_this_call->call(argument) != OMENDB_MISUSE;
}

TEST(every_call_on_an_inherited_handle_is_misuse_and_harms_nothing)
{
    struct processes_handles on = {NULL, NULL, NULL, NULL, NULL, NULL};
    uint64_t id;
    size_t count;
    CHECK_EQ_INT(processes_create("table", &on.db, &on.collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(on.collection, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(on.db, OMENDB_READ_WRITE, &on.txn), OMENDB_OK);
    CHECK_EQ_INT(support_put(on.collection, on.txn, 1000, 5, PROCESSES_DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(on.collection, NULL, 0, UINT64_MAX - 1, &on.rows), OMENDB_OK);
    processes_schema.dim = PROCESSES_DIM;
    processes_record.vector = processes_vectors;
    processes_query.vector = processes_vectors;
    CHECK_EQ_INT(omendb_pages_open(on.collection, NULL, &processes_query, &on.pages), OMENDB_OK);
    CHECK_EQ_INT(omendb_facets_open(on.collection, NULL, NULL, NULL, NULL, "a", 0, &on.facets),
                 OMENDB_OK);
    int bad = 0;
    for (size_t i = 0; i < PROCESSES_CALLS; i++) {
        processes_this_call = &processes_calls[i];
        if (processes_in_child(processes_child_calls, &on) == 0)
            continue;
        fprintf(stderr, "    %s in a child\n", processes_calls[i].name);
        bad++;
    }
    CHECK_EQ_INT(bad, 0);
    CHECK_EQ_INT(processes_in_child(processes_child_expects_busy, NULL), 0);
    CHECK_EQ_INT(omendb_rows_next(on.rows, NULL, OMENDB_F32, NULL), OMENDB_OK);
    omendb_rows_close(on.rows);
    CHECK_EQ_INT(omendb_pages_next(on.pages, 1, 0, &id, NULL, &count), OMENDB_OK);
    omendb_pages_close(on.pages);
    CHECK_EQ_INT(omendb_facets_next(on.facets, &processes_facet), OMENDB_DONE);
    omendb_facets_close(on.facets);
    CHECK_EQ_INT(omendb_txn_commit(on.txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_get(on.collection, NULL, 1000, OMENDB_F32, NULL), OMENDB_OK);
    CHECK_EQ_INT(support_check(on.db), OMENDB_OK);
    omendb_collection_close(on.collection);
    CHECK_EQ_INT(omendb_close(on.db), OMENDB_OK);
}

/* The name of the function that a declaration which takes a handle declares; 0: none is taken. */
static int processes_takes_handle(const char *declaration, char name[64])
{
    static const char *const handles[] = {"(omendb *db",          "(omendb_collection *collection",
                                          "(omendb_txn *txn",     "(omendb_rows *rows",
                                          "(omendb_pages *pages", "(omendb_facets *facets"};
    for (size_t i = 0; i < sizeof handles / sizeof handles[0]; i++) {
        const char *at = strstr(declaration, handles[i]), *end = strchr(declaration, ';');
        if (at == NULL || end == NULL || at > end)
            continue;
        const char *begin = at;
        while (begin > declaration && begin[-1] != ' ' && begin[-1] != '*')
            begin--;
        snprintf(name, 64, "%.*s", (int)(at - begin), begin);
        return 1;
    }
    return 0;
}

static int processes_is_in_table(const char *name)
{
    for (size_t i = 0; i < PROCESSES_CALLS; i++)
        if (strcmp(processes_calls[i].name, name) == 0)
            return 1;
    fprintf(stderr, "    %s is missing in processes_calls\n", name);
    return 0;
}

TEST(the_table_of_calls_has_every_function_that_takes_a_handle)
{
    static char text[256 * 1024];
    char name[64];
    size_t found = 0, missing = 0;
    FILE *file = fopen("omendb.h", "rb");
    if (file == NULL) /* the program was moved away from the sources */
        return;
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    for (const char *at = text; (at = strstr(at, "\nOMENDB_API ")) != NULL; at++) {
        if (!processes_takes_handle(at, name))
            continue;
        found++;
        missing += !processes_is_in_table(name);
    }
    CHECK_EQ_INT(missing, 0);
    CHECK_EQ_INT(found, PROCESSES_CALLS);
}

static int processes_child_uses_own(void *argument)
{
    struct processes_handles *handles = argument;
    omendb *own = NULL;
    omendb_collection *collection = NULL;
    int bad = 0;
    bad |= (processes_open(processes_path, 0, &own) != OMENDB_BUSY) << 0;
    bad |= (omendb_close(handles->db) != OMENDB_OK) << 1;
    if (processes_open(processes_path, 1, &own) != OMENDB_OK ||
        omendb_collection_open(own, "c", NULL, &collection) != OMENDB_OK ||
        processes_read_round(collection) != 1)
        bad |= 1 << 2;
    omendb_collection_close(collection);
    omendb_close(own);
    return bad;
}

TEST(a_forked_child_closes_what_it_inherited_and_opens_its_own)
{
    struct processes_handles handles = {NULL, NULL, NULL, NULL, NULL, NULL};
    CHECK_EQ_INT(processes_create("fork", &handles.db, &handles.collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(handles.collection, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(handles.db), OMENDB_OK);
    CHECK_EQ_INT(processes_in_child(processes_child_uses_own, &handles), 0);
    CHECK_EQ_INT(processes_in_child(processes_child_expects_busy, NULL), 0);
    CHECK_EQ_INT(processes_put_round(handles.collection, 2), OMENDB_OK);
    CHECK(processes_read_round(handles.collection) == 2);
    CHECK_EQ_INT(support_check(handles.db), OMENDB_OK);
    omendb_collection_close(handles.collection);
    CHECK_EQ_INT(omendb_close(handles.db), OMENDB_OK);
}

/* A child that lives on must not keep the lock: its parent may be restarted. */
TEST(a_forked_child_does_not_hold_the_lock)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int ends[2];
    char byte = 0;
    CHECK_EQ_INT(processes_create("lock", &db, &collection), OMENDB_OK);
    CHECK(pipe(ends) == 0);
    const pid_t child = processes_fork();
    if (child == 0) {
        close(ends[1]);
        _exit(read(ends[0], &byte, 1) < 0);
    }
    close(ends[0]);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    const int status = processes_open(processes_path, 0, &db);
    const int closed = omendb_close(db);
    close(ends[1]);
    waitpid(child, NULL, 0);
    CHECK_EQ_INT(status, OMENDB_OK);
    CHECK_EQ_INT(closed, OMENDB_OK);
}

/* ---- a parent that is killed while its child lives */

enum processes_heir { HEIR_WAITS, HEIR_EXECS };

/* Says on `runs` that it runs and waits until the other end of `wait_for` is closed. A program is
 * started by posix_spawn, which runs no handler of forks: every descriptor that exec does not close
 * goes on in it. */
static int processes_start_heir(enum processes_heir heir, int wait_for, int runs)
{
    char byte, *arguments[] = {(char[]){"sh"}, (char[]){"-c"}, (char[]){"echo r; exec cat"}, NULL},
               *environment[] = {NULL};
    posix_spawn_file_actions_t actions;
    pid_t child;
    if (heir == HEIR_EXECS) {
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, wait_for, 0);
        posix_spawn_file_actions_adddup2(&actions, runs, 1);
        return posix_spawn(&child, "/bin/sh", &actions, NULL, arguments, environment) == 0;
    }
    child = processes_fork();
    if (child != 0)
        return child > 0;
    if (write(runs, "r", 1) != 1)
        _exit(3);
    while (read(wait_for, &byte, 1) > 0)
        ;
    _exit(0);
}

/* The child of a writer. Returns when the child runs: one that was forked and did not run yet, or
 * is in the midst of exec, holds what it inherited. */
static void processes_leave_heir(enum processes_heir heir, int wait_for)
{
    char byte;
    int runs[2];
    if (pipe(runs) != 0 || !processes_start_heir(heir, wait_for, runs[1]))
        _exit(3);
    close(runs[1]);
    if (read(runs[0], &byte, 1) != 1)
        _exit(3);
    close(runs[0]);
}

/* vfs whose first write to a second directory forks an heir and kills the process: in a backup. */
static struct {
    omendb_vfs vfs;
    void *directory;
    int armed, wait_for;
    enum processes_heir heir;
} processes_deadly;

static int processes_deadly_open_directory(void *context, const char *path, int create,
                                           void **directory)
{
    const omendb_vfs *own = omendb_default_vfs();
    (void)context;
    return own->open_directory(own->context, path, create, directory);
}

static int processes_deadly_write(void *context, void *file, uint64_t offset, const void *buffer,
                                  size_t size)
{
    const omendb_vfs *own = omendb_default_vfs();
    (void)context;
    if (processes_deadly.armed) {
        processes_leave_heir(processes_deadly.heir, processes_deadly.wait_for);
        kill(getpid(), SIGKILL);
    }
    return own->write(own->context, file, offset, buffer, size);
}

/* A writer that leaves an heir and is killed; with `target` in the midst of a backup to it. */
static void processes_live_and_die(enum processes_heir heir, int wait_for, const char *target)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    processes_deadly.vfs = *omendb_default_vfs();
    processes_deadly.vfs.open_directory = processes_deadly_open_directory;
    processes_deadly.vfs.write = processes_deadly_write;
    processes_deadly.heir = heir;
    processes_deadly.wait_for = wait_for;
    options.vfs = &processes_deadly.vfs;
    options.threads = 0;
    if (omendb_open(processes_path, &options, &db) != OMENDB_OK ||
        omendb_collection_open(db, "c", NULL, &collection) != OMENDB_OK ||
        processes_put_round(collection, 1) != OMENDB_OK)
        _exit(1);
    if (target != NULL && omendb_backup(db, target) == OMENDB_OK &&
        processes_put_round(collection, 2) == OMENDB_OK && omendb_checkpoint(db) == OMENDB_OK) {
        processes_deadly.armed = 1;
        omendb_backup(db, target);
        _exit(1);
    }
    if (target == NULL) {
        processes_leave_heir(heir, wait_for);
        kill(getpid(), SIGKILL);
    }
    _exit(1);
}

/* Whether who restarts after that writer is let in; with `target` also to the target. */
static int processes_restart(enum processes_heir heir, const char *target)
{
    int ends[2], status = 0, code = OMENDB_IOERR;
    omendb *db = NULL;
    if (pipe(ends) != 0)
        return OMENDB_IOERR;
    const pid_t writer = processes_fork();
    if (writer == 0) {
        close(ends[1]);
        processes_live_and_die(heir, ends[0], target);
    }
    close(ends[0]);
    if (waitpid(writer, &status, 0) == writer && WIFSIGNALED(status)) {
        code = processes_open(processes_path, 0, &db);
        if (code == OMENDB_OK && target != NULL)
            code = omendb_backup(db, target);
    }
    if (code != OMENDB_OK)
        fprintf(stderr, "    %s: %s\n", omendb_strerror(code), omendb_errmsg());
    close(ends[1]);
    const int closed = omendb_close(db);
    return code == OMENDB_OK ? closed : code;
}

TEST(a_parent_that_was_killed_is_not_locked_out_by_its_child)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    char target[4200];
    CHECK_EQ_INT(processes_create("killed", &db, &collection), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    snprintf(target, sizeof target, "%s-copy", processes_path);
    for (int heir = HEIR_WAITS; heir <= HEIR_EXECS; heir++) {
        CHECK_EQ_INT(processes_restart((enum processes_heir)heir, NULL), OMENDB_OK);
        support_remove(target);
        CHECK_EQ_INT(processes_restart((enum processes_heir)heir, target), OMENDB_OK);
    }
}

/* ------------------------------------------------------------------------------------------------
 * readers */

/* Two collections whose records one transaction gives the same round. */
static int processes_put_both(omendb *db, omendb_collection *a, omendb_collection *b,
                              uint64_t round)
{
    omendb_txn *txn = NULL;
    float vector[PROCESSES_DIM];
    omendb_record record = OMENDB_RECORD_INIT;
    int status = omendb_txn_begin(db, OMENDB_READ_WRITE, &txn);
    support_vector(round, PROCESSES_DIM, vector);
    vector[0] = (float)round;
    record.id = 1;
    record.vector = vector;
    if (status == OMENDB_OK)
        status = omendb_put(a, txn, &record, NULL);
    if (status == OMENDB_OK)
        status = omendb_put(b, txn, &record, NULL);
    if (status == OMENDB_OK)
        return omendb_txn_commit(txn);
    omendb_txn_rollback(txn);
    return status;
}

/* A writer that tells each round to a reader in a child, after it was acknowledged. Of rounds that
 * a number divides, it checkpoints or merges then; 0: of none. */
struct processes_telling {
    omendb *db;
    omendb_collection *collection, *other; /* NULL: only one */
    uint64_t rounds, checkpoint_each, merge_each;
};

static int processes_tell_round(const struct processes_telling *told, int to, uint64_t round)
{
    int status = told->other != NULL
                     ? processes_put_both(told->db, told->collection, told->other, round)
                     : processes_put_round(told->collection, round);
    if (status == OMENDB_OK && told->checkpoint_each != 0 && round % told->checkpoint_each == 0)
        status = omendb_checkpoint(told->db);
    if (status == OMENDB_OK && told->merge_each != 0 && round % told->merge_each == 0)
        status = omendb_optimize(told->db, NULL, NULL);
    if (status == OMENDB_OK && write(to, &round, sizeof round) != (ssize_t)sizeof round)
        status = OMENDB_DONE; /* the child went; its exit status tells why */
    return status;
}

/* Rounds 2 and following, which `follow` hears of in a child. */
static void processes_tell_rounds(const struct processes_telling *told,
                                  int (*follow)(void *argument))
{
    int ends[2], child_status = 0, status = OMENDB_OK;
    CHECK(pipe(ends) == 0);
    const pid_t child = processes_fork();
    if (child == 0)
        _exit(follow(ends));
    close(ends[0]);
    signal(SIGPIPE, SIG_IGN);
    for (uint64_t round = 2; round < told->rounds && status == OMENDB_OK; round++)
        status = processes_tell_round(told, ends[1], round);
    close(ends[1]);
    waitpid(child, &child_status, 0);
    CHECK(WIFEXITED(child_status) && WEXITSTATUS(child_status) == 0);
    CHECK_EQ_INT(status, OMENDB_OK);
}

/* The same in a new database, of one collection. */
static void processes_tell_anew(const char *name, struct processes_telling *told,
                                int (*follow)(void *argument))
{
    CHECK_EQ_INT(processes_create(name, &told->db, &told->collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(told->collection, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(told->db), OMENDB_OK);
    processes_tell_rounds(told, follow);
    omendb_collection_close(told->collection);
    CHECK_EQ_INT(omendb_close(told->db), OMENDB_OK);
}

/* Refreshes until the pipe says that the writer is done; sees rounds that only grow. */
static int processes_child_follows(void *argument)
{
    const int *ends = argument;
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int64_t last = 0;
    uint64_t said = 0, refreshes = 0;
    int status = processes_open(processes_path, 1, &db);
    if (status == OMENDB_OK)
        status = omendb_collection_open(db, "c", NULL, &collection);
    close(ends[1]);
    while (status == OMENDB_OK && read(ends[0], &said, sizeof said) == (ssize_t)sizeof said) {
        status = omendb_refresh(db);
        if (status != OMENDB_OK)
            break;
        const int64_t round = processes_read_round(collection);
        refreshes++;
        if (round < last || round < (int64_t)said) {
            fprintf(stderr, "    round %lld after %lld, the writer said %llu\n", (long long)round,
                    (long long)last, (unsigned long long)said);
            status = OMENDB_CORRUPT;
        }
        last = round;
    }
    if (status != OMENDB_OK)
        fprintf(stderr, "    the reader: %s: %s\n", omendb_strerror(status), omendb_errmsg());
    omendb_collection_close(collection);
    if (omendb_close(db) != OMENDB_OK)
        status = OMENDB_MISUSE;
    return status == OMENDB_OK && refreshes > 0 ? 0 : 1;
}

TEST(a_reader_in_another_process_follows_and_sees_no_half_batch)
{
    struct processes_telling told = {
        .rounds = support_scaled(400, 40), .checkpoint_each = 13, .merge_each = 37};
    processes_tell_anew("readers", &told, processes_child_follows);
}

/* Opens and closes all the time while the writer works. */
static int processes_child_reopens(void *argument)
{
    const int *ends = argument;
    uint64_t said = 0, opens = 0;
    int bad = 0;
    close(ends[1]);
    while (!bad && read(ends[0], &said, sizeof said) == (ssize_t)sizeof said) {
        omendb *db = NULL;
        omendb_collection *collection = NULL;
        int status = processes_open(processes_path, 1, &db);
        if (status == OMENDB_OK)
            status = omendb_collection_open(db, "c", NULL, &collection);
        if (status != OMENDB_OK)
            fprintf(stderr, "    opening: %s: %s\n", omendb_strerror(status), omendb_errmsg());
        bad = status != OMENDB_OK || processes_read_round(collection) < (int64_t)said;
        omendb_collection_close(collection);
        bad |= omendb_close(db) != OMENDB_OK;
        opens++;
    }
    return bad || opens == 0;
}

TEST(readers_open_while_the_writer_checkpoints)
{
    struct processes_telling told = {.rounds = support_scaled(200, 30), .checkpoint_each = 3};
    processes_tell_anew("reopening", &told, processes_child_reopens);
}

/* ---- a reader that the writer overtakes at each of its calls
 *
 * Before: round 3 is in the log that the manifest names, round 4 in its successor, which no
 * manifest names as the checkpoint that began it found no space. At one call of the reader,
 * whichever it is, the writer checkpoints twice, which is the end of both logs; the reader holds
 * the manifest that needs the first. What was acknowledged before must be seen all the same. */
static struct {
    omendb_vfs reader_vfs, writer_vfs;
    int full;                  /* the writer's: no segment can be made */
    uint64_t calls, strike_at; /* the reader's, and the one at which the writer strikes; 0: none */
    uint64_t round;            /* the newest */
    omendb *db;                /* the writer's */
    omendb_collection *collection;
    int status;
} processes_race;

static int processes_race_writer_open(void *context, void *directory, const char *name, int flags,
                                      void **file)
{
    const omendb_vfs *own = omendb_default_vfs();
    (void)context;
    *file = NULL;
    return processes_race.full && strncmp(name, "seg-", 4) == 0 && (flags & OMENDB_OPEN_CREATE)
               ? OMENDB_FULL
               : own->open(own->context, directory, name, flags, file);
}

static void processes_race_strike(void)
{
    for (int i = 0; i < 2 && processes_race.status == OMENDB_OK; i++) {
        processes_race.status =
            processes_put_round(processes_race.collection, ++processes_race.round);
        if (processes_race.status == OMENDB_OK)
            processes_race.status = omendb_checkpoint(processes_race.db);
    }
}

static void processes_race_call(void)
{
    if (++processes_race.calls == processes_race.strike_at)
        processes_race_strike();
}

static int processes_race_open(void *context, void *directory, const char *name, int flags,
                               void **file)
{
    const omendb_vfs *own = omendb_default_vfs();
    (void)context;
    processes_race_call();
    return own->open(own->context, directory, name, flags, file);
}

static int processes_race_read(void *context, void *file, uint64_t offset, void *buffer,
                               size_t size)
{
    const omendb_vfs *own = omendb_default_vfs();
    (void)context;
    processes_race_call();
    return own->read(own->context, file, offset, buffer, size);
}

static int processes_race_list(void *context, void *directory,
                               int (*each)(void *each_context, const char *name),
                               void *each_context)
{
    const omendb_vfs *own = omendb_default_vfs();
    (void)context;
    processes_race_call();
    const int status = own->list(own->context, directory, each, each_context);
    processes_race_call();
    return status;
}

static int processes_race_lock(void *context, void *file, int lock)
{
    const omendb_vfs *own = omendb_default_vfs();
    (void)context;
    processes_race_call();
    return own->lock(own->context, file, lock);
}

static int processes_race_begin(void)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    processes_race.reader_vfs = processes_race.writer_vfs = *omendb_default_vfs();
    processes_race.writer_vfs.open = processes_race_writer_open;
    processes_race.reader_vfs.open = processes_race_open;
    processes_race.reader_vfs.read = processes_race_read;
    processes_race.reader_vfs.list = processes_race_list;
    processes_race.reader_vfs.lock = processes_race_lock;
    processes_race.full = 0;
    processes_race.calls = processes_race.strike_at = 0;
    processes_race.round = 0;
    snprintf(processes_path, sizeof processes_path, "%s", support_path("overtaken"));
    options.vfs = &processes_race.writer_vfs;
    options.threads = 0;
    schema.dim = PROCESSES_DIM;
    int status = omendb_open(processes_path, &options, &processes_race.db);
    if (status == OMENDB_OK)
        status =
            omendb_collection_create(processes_race.db, "c", &schema, &processes_race.collection);
    processes_race.status = status;
    processes_race_strike();
    return processes_race.status;
}

/* Rounds 3 and 4. */
static int processes_race_prepare(void)
{
    int status = processes_put_round(processes_race.collection, ++processes_race.round);
    processes_race.full = 1;
    if (status == OMENDB_OK && omendb_checkpoint(processes_race.db) != OMENDB_FULL)
        status = OMENDB_MISMATCH;
    processes_race.full = 0;
    if (status == OMENDB_OK)
        status = processes_put_round(processes_race.collection, ++processes_race.round);
    return status;
}

static int processes_race_end(void)
{
    omendb_collection_close(processes_race.collection);
    processes_race.collection = NULL;
    const int closed = omendb_close(processes_race.db);
    processes_race.db = NULL;
    return processes_race.status == OMENDB_OK ? closed : processes_race.status;
}

static int processes_race_open_reader(omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.vfs = &processes_race.reader_vfs;
    options.read_only = 1;
    return omendb_open(processes_path, &options, db);
}

/* Opens, or refreshes what was opened before the two rounds, with the strike at call `at`. Returns
 * 0 where it came to fewer calls; -1 for a failure. */
static int processes_race_once(int refresh, uint64_t at)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int64_t seen = -1;
    int status = processes_race_begin();
    if (status == OMENDB_OK && refresh)
        status = processes_race_open_reader(&db);
    if (status == OMENDB_OK)
        status = processes_race_prepare();
    const int64_t acknowledged = (int64_t)processes_race.round;
    processes_race.calls = 0;
    processes_race.strike_at = at;
    if (status == OMENDB_OK)
        status = refresh ? omendb_refresh(db) : processes_race_open_reader(&db);
    if (status == OMENDB_OK)
        status = omendb_collection_open(db, "c", NULL, &collection);
    const int struck = processes_race.calls >= at;
    processes_race.strike_at = 0;
    if (status == OMENDB_OK)
        seen = processes_read_round(collection);
    if (seen < acknowledged)
        fprintf(stderr, "    %s, struck at call %llu: round %lld, acknowledged %lld: %s: %s\n",
                refresh ? "refreshing" : "opening", (unsigned long long)at, (long long)seen,
                (long long)acknowledged, omendb_strerror(status), omendb_errmsg());
    omendb_collection_close(collection);
    if (omendb_close(db) != OMENDB_OK || processes_race_end() != OMENDB_OK || seen < acknowledged)
        return -1;
    return struck;
}

TEST(a_reader_that_checkpoints_overtake_sees_what_was_acknowledged)
{
    for (int refresh = 0; refresh <= 1; refresh++) {
        uint64_t at = 0;
        int result = 1;
        while (result == 1 && at < 1000)
            result = processes_race_once(refresh, ++at);
        CHECK_EQ_INT(result, 0);
        CHECK(at > 20 && at < 1000);
    }
}

TEST(a_reader_that_the_writer_left_behind_finds_no_damage)
{
    omendb *db = NULL;
    CHECK_EQ_INT(processes_race_begin(), OMENDB_OK);
    CHECK_EQ_INT(processes_race_open_reader(&db), OMENDB_OK);
    processes_race_strike();
    const int behind = support_check(db);
    CHECK_EQ_INT(omendb_refresh(db), OMENDB_OK);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(processes_race_end(), OMENDB_OK);
    CHECK_EQ_INT(behind, OMENDB_OK);
}

static int processes_count_in(omendb *db, const char *name, uint64_t *count)
{
    omendb_collection *collection = NULL;
    int status = omendb_collection_open(db, name, NULL, &collection);
    if (status == OMENDB_OK)
        status = omendb_count(collection, NULL, count);
    omendb_collection_close(collection);
    return status;
}

static uint64_t processes_current_manifest(void)
{
    char path[4200];
    unsigned long long number = 0;
    snprintf(path, sizeof path, "%s/CURRENT", processes_path);
    FILE *file = fopen(path, "r");
    const int found = file != NULL && fscanf(file, "MANIFEST-%llu", &number) == 1;
    if (file != NULL)
        fclose(file);
    return found ? number : 0;
}

/* A merge publishes a manifest that begins with the same log as the one before: what the log made
 * is made again when a reader goes over to it. */
TEST(a_reader_meets_again_a_collection_that_the_log_made)
{
    omendb *db = NULL;
    omendb_collection *made = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    uint64_t count = 0;
    schema.dim = PROCESSES_DIM;
    CHECK_EQ_INT(processes_race_begin(), OMENDB_OK);
    for (int i = 0; i < 4; i++)
        processes_race_strike();
    CHECK_EQ_INT(omendb_collection_create(processes_race.db, "d", &schema, &made), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(made, 1), OMENDB_OK);
    CHECK_EQ_INT(processes_race_open_reader(&db), OMENDB_OK);
    CHECK_EQ_INT(processes_count_in(db, "d", &count), OMENDB_OK);
    CHECK_EQ_INT(count, PROCESSES_BATCH);
    const uint64_t before = processes_current_manifest();
    CHECK_EQ_INT(omendb_work(processes_race.db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK(processes_current_manifest() > before && before > 0);
    CHECK_EQ_INT(support_put(made, NULL, 1, 5, PROCESSES_DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(db), OMENDB_OK);
    count = 0;
    CHECK_EQ_INT(processes_count_in(db, "d", &count), OMENDB_OK);
    CHECK_EQ_INT(count, PROCESSES_BATCH + 1);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    omendb_collection_close(made);
    CHECK_EQ_INT(processes_race_end(), OMENDB_OK);
}

/* Holds what it opened first while the writer goes on, and reads it at the end. */
static int processes_child_stands_still(void *argument)
{
    const int *ends = argument;
    char byte = 0;
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int bad = processes_open(processes_path, 1, &db) != OMENDB_OK ||
              omendb_collection_open(db, "c", NULL, &collection) != OMENDB_OK;
    bad = bad || write(ends[1], "r", 1) != 1 || read(ends[2], &byte, 1) != 1;
    bad = bad || processes_read_round(collection) != 1;
    bad = bad || omendb_refresh(db) != OMENDB_OK || processes_read_round(collection) != 59;
    omendb_collection_close(collection);
    return bad | (omendb_close(db) != OMENDB_OK);
}

TEST(a_reader_that_does_not_refresh_keeps_its_state)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int to_parent[2], to_child[2], child_status = 0, status = OMENDB_OK;
    char byte = 0;
    CHECK_EQ_INT(processes_create("still", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK(pipe(to_parent) == 0 && pipe(to_child) == 0);
    const pid_t child = processes_fork();
    if (child == 0) {
        int ends[3] = {to_parent[0], to_parent[1], to_child[0]};
        close(to_child[1]);
        _exit(processes_child_stands_still(ends));
    }
    close(to_parent[1]);
    signal(SIGPIPE, SIG_IGN);
    const int ready = read(to_parent[0], &byte, 1) == 1;
    for (uint64_t round = 2; round < 60 && status == OMENDB_OK; round++) {
        status = processes_put_round(collection, round);
        if (status == OMENDB_OK)
            status = round % 10 == 0 ? omendb_optimize(db, NULL, NULL) : omendb_checkpoint(db);
    }
    const int told = write(to_child[1], "g", 1) == 1;
    waitpid(child, &child_status, 0);
    CHECK_EQ_INT(status, OMENDB_OK);
    CHECK(ready && told);
    CHECK(WIFEXITED(child_status) && WEXITSTATUS(child_status) == 0);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    close(to_parent[0]);
    close(to_child[0]);
    close(to_child[1]);
}

static int processes_child_compares_both(void *argument)
{
    const int *ends = argument;
    float a[PROCESSES_DIM], b[PROCESSES_DIM], last = 0;
    omendb *db = NULL;
    omendb_collection *first = NULL, *second = NULL;
    uint64_t said = 0, looks = 0;
    int bad = processes_open(processes_path, 1, &db) != OMENDB_OK ||
              omendb_collection_open(db, "c", NULL, &first) != OMENDB_OK ||
              omendb_collection_open(db, "other", NULL, &second) != OMENDB_OK;
    close(ends[1]);
    while (!bad && read(ends[0], &said, sizeof said) == (ssize_t)sizeof said) {
        bad = omendb_refresh(db) != OMENDB_OK ||
              omendb_get(first, NULL, 1, OMENDB_F32, a) != OMENDB_OK ||
              omendb_get(second, NULL, 1, OMENDB_F32, b) != OMENDB_OK || a[0] != b[0] ||
              a[0] < (float)said || a[0] < last;
        if (bad)
            fprintf(stderr, "    %g beside %g after %g: %s\n", (double)a[0], (double)b[0],
                    (double)last, omendb_errmsg());
        last = a[0];
        looks++;
    }
    omendb_collection_close(first);
    omendb_collection_close(second);
    return omendb_close(db) != OMENDB_OK || bad || looks == 0;
}

TEST(a_reader_never_sees_half_of_a_transaction)
{
    omendb *db = NULL;
    omendb_collection *first = NULL, *second = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    CHECK_EQ_INT(processes_create("both", &db, &first), OMENDB_OK);
    schema.dim = PROCESSES_DIM;
    CHECK_EQ_INT(omendb_collection_create(db, "other", &schema, &second), OMENDB_OK);
    CHECK_EQ_INT(processes_put_both(db, first, second, 1), OMENDB_OK);
    const struct processes_telling told = {db, first, second, support_scaled(400, 40), 11, 29};
    processes_tell_rounds(&told, processes_child_compares_both);
    omendb_collection_close(first);
    omendb_collection_close(second);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* A reader that stands still, and says by its exit status whether it saw round 1 at the end. */
struct processes_reader {
    pid_t child;
    int tell;
};

static void processes_be_reader(int ready, int wait_for, uint32_t io)
{
    char byte = 0;
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.read_only = 1;
    options.io = io;
    int bad = omendb_open(processes_path, &options, &db) != OMENDB_OK ||
              omendb_collection_open(db, "c", NULL, &collection) != OMENDB_OK;
    bad = write(ready, "r", 1) != 1 || bad;
    bad = read(wait_for, &byte, 1) != 1 || bad;
    bad = bad || processes_read_round(collection) != 1;
    omendb_collection_close(collection);
    _exit(omendb_close(db) != OMENDB_OK || bad);
}

/* Returns when the reader has opened. */
static struct processes_reader processes_start_reader(uint32_t io)
{
    struct processes_reader reader = {-1, -1};
    int ready[2], go[2];
    char byte;
    if (pipe(ready) != 0 || pipe(go) != 0)
        return reader;
    reader.child = processes_fork();
    if (reader.child == 0) {
        close(go[1]);
        processes_be_reader(ready[1], go[0], io);
    }
    close(ready[1]);
    close(go[0]);
    reader.tell = go[1];
    if (read(ready[0], &byte, 1) != 1)
        reader.child = -1;
    close(ready[0]);
    return reader;
}

static int processes_finish_reader(struct processes_reader reader)
{
    return processes_finish_opener(reader.child, reader.tell);
}

/* Dropped, merged, and the writer gone, another one come and gone. */
static int processes_write_over(void)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = PROCESSES_DIM;
    int status = processes_open(processes_path, 0, &db);
    if (status == OMENDB_OK)
        status = omendb_collection_drop(db, "c");
    if (status == OMENDB_OK)
        status = omendb_checkpoint(db);
    if (status == OMENDB_OK)
        status = omendb_optimize(db, NULL, NULL);
    if (status == OMENDB_OK)
        status = omendb_collection_create(db, "c", &schema, &collection);
    for (uint64_t round = 2; round < 9 && status == OMENDB_OK; round++) {
        status = processes_put_round(collection, round);
        if (status == OMENDB_OK)
            status = omendb_checkpoint(db);
    }
    omendb_collection_close(collection);
    const int closed = omendb_close(db);
    status = status == OMENDB_OK ? closed : status;
    if (status == OMENDB_OK)
        status = processes_open(processes_path, 0, &db);
    if (status == OMENDB_OK)
        status = omendb_optimize(db, NULL, NULL);
    const int closed_again = omendb_close(db);
    return status == OMENDB_OK ? closed_again : status;
}

/* The path of a file there whose name begins so; 0: there is none. */
static int processes_find_file(const char *prefix, char *path, size_t capacity)
{
    struct dirent *entry;
    int found = 0;
    DIR *entries = opendir(processes_path);
    while (entries != NULL && !found && (entry = readdir(entries)) != NULL)
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0)
            found = snprintf(path, capacity, "%s/%s", processes_path, entry->d_name) > 0;
    if (entries != NULL)
        closedir(entries);
    return found;
}

/* They are there, for whoever reads with the reader's manifest what it has not opened yet; and go
 * when the reader has gone. */
TEST(files_of_a_reader_stay_when_the_writer_dropped_merged_and_left)
{
    char segment[8400], manifest[8400];
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    CHECK_EQ_INT(processes_create("dropped", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 1), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK(processes_find_file("seg-", segment, sizeof segment));
    CHECK(processes_find_file("MANIFEST-", manifest, sizeof manifest));
    const struct processes_reader mapped = processes_start_reader(OMENDB_IO_MAP);
    const struct processes_reader unmapped = processes_start_reader(OMENDB_IO_PREAD);
    CHECK(mapped.child > 0 && unmapped.child > 0);
    const int written = processes_write_over();
    const int kept = access(segment, F_OK) == 0 && access(manifest, F_OK) == 0;
    const int first = processes_finish_reader(mapped);
    const int second = processes_finish_reader(unmapped);
    CHECK_EQ_INT(written, OMENDB_OK);
    CHECK(kept);
    CHECK_EQ_INT(first, 0);
    CHECK_EQ_INT(second, 0);
    CHECK_EQ_INT(processes_write_over(), OMENDB_OK);
    CHECK(access(segment, F_OK) != 0 && access(manifest, F_OK) != 0);
}

/* It holds its lock and answers nobody. */
TEST(a_reader_that_is_stopped_does_not_stop_the_writer)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int state = 0;
    CHECK_EQ_INT(processes_create("stopped", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 1), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    const struct processes_reader reader = processes_start_reader(OMENDB_IO_MAP);
    CHECK(reader.child > 0 && kill(reader.child, SIGSTOP) == 0);
    CHECK(waitpid(reader.child, &state, WUNTRACED) == reader.child && WIFSTOPPED(state));
    const omendb_vfs *vfs = omendb_default_vfs();
    const uint64_t begin = vfs->now_us(vfs->context);
    const int written = processes_write_over();
    const uint64_t took = vfs->now_us(vfs->context) - begin;
    kill(reader.child, SIGCONT);
    const int read_back = processes_finish_reader(reader);
    CHECK_EQ_INT(written, OMENDB_OK);
    CHECK_EQ_INT(read_back, 0);
    CHECK(took < UINT64_C(300000000));
}

/* ------------------------------------------------------------------------------------------------
 * directories */

static int processes_child_reads_read_only_directory(void *argument)
{
    const char *name = argument;
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
        return 2;
    if (access(name, R_OK | X_OK) != 0)
        return 2; /* a folder above is closed for this user */
    int status = processes_open(name, 1, &db);
    if (status == OMENDB_OK)
        status = omendb_collection_open(db, "c", NULL, &collection);
    if (status != OMENDB_OK) {
        fprintf(stderr, "    %s: %s\n", omendb_strerror(status), omendb_errmsg());
        return 1;
    }
    const int64_t round = processes_read_round(collection);
    omendb_collection_close(collection);
    return omendb_close(db) != OMENDB_OK || round != 7;
}

static int processes_chmod_all(mode_t directory_mode, mode_t file_mode)
{
    char child[4400];
    struct dirent *entry;
    DIR *entries;
    if (chmod(processes_path, 0700) != 0 || (entries = opendir(processes_path)) == NULL)
        return 0;
    while ((entry = readdir(entries)) != NULL) {
        snprintf(child, sizeof child, "%s/%s", processes_path, entry->d_name);
        if (entry->d_name[0] != '.' && chmod(child, file_mode) != 0)
            return 0;
    }
    closedir(entries);
    return chmod(processes_path, directory_mode) == 0;
}

TEST(a_directory_that_cannot_be_written_can_be_read)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    CHECK_EQ_INT(processes_create("readonly", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 7), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK(processes_chmod_all(0555, 0444));
    const int result =
        processes_in_child(processes_child_reads_read_only_directory, processes_path);
    CHECK(processes_chmod_all(0700, 0600));
    CHECK(result == 0 || result == 2);
}

TEST(a_moved_directory_opens_as_before)
{
    char moved[4200];
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    CHECK_EQ_INT(processes_create("moved", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 3), OMENDB_OK);
    snprintf(moved, sizeof moved, "%s-away", processes_path);
    support_remove(moved);
    CHECK(rename(processes_path, moved) == 0);
    CHECK_EQ_INT(processes_put_round(collection, 4), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK(access(processes_path, F_OK) != 0);
    CHECK_EQ_INT(processes_open(moved, 0, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(db, "c", NULL, &collection), OMENDB_OK);
    CHECK(processes_read_round(collection) == 4);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* Answers what a read-only medium does: files are opened and read, all else is refused. */
static uint64_t processes_refusals;

static int processes_refuse(void)
{
    processes_refusals++;
    errno = EROFS;
    return OMENDB_PERMISSION;
}

static int processes_medium_open_directory(void *context, const char *path, int create,
                                           void **directory)
{
    const omendb_vfs *own = omendb_default_vfs();
    (void)context;
    *directory = NULL;
    return create ? processes_refuse() : own->open_directory(own->context, path, create, directory);
}

static int processes_medium_open(void *context, void *directory, const char *name, int flags,
                                 void **file)
{
    const omendb_vfs *own = omendb_default_vfs();
    (void)context;
    *file = NULL;
    return flags != OMENDB_OPEN_READ ? processes_refuse()
                                     : own->open(own->context, directory, name, flags, file);
}

static int processes_medium_write(void *context, void *file, uint64_t offset, const void *buffer,
                                  size_t size)
{
    (void)context, (void)file, (void)offset, (void)buffer, (void)size;
    return processes_refuse();
}

static int processes_medium_set_size(void *context, void *file, uint64_t size)
{
    (void)context, (void)file, (void)size;
    return processes_refuse();
}

static int processes_medium_rename(void *context, void *directory, const char *from, const char *to)
{
    (void)context, (void)directory, (void)from, (void)to;
    return processes_refuse();
}

static int processes_medium_unlink(void *context, void *directory, const char *name)
{
    (void)context, (void)directory, (void)name;
    return processes_refuse();
}

static int processes_medium_sync(void *context, void *file)
{
    (void)context, (void)file;
    return processes_refuse();
}

static int processes_medium_lock(void *context, void *file, int lock)
{
    (void)context, (void)file, (void)lock;
    return processes_refuse();
}

static omendb_vfs processes_medium(void)
{
    omendb_vfs vfs = *omendb_default_vfs();
    vfs.open_directory = processes_medium_open_directory;
    vfs.open = processes_medium_open;
    vfs.write = processes_medium_write;
    vfs.truncate = processes_medium_set_size;
    vfs.allocate = processes_medium_set_size;
    vfs.rename = processes_medium_rename;
    vfs.unlink = processes_medium_unlink;
    vfs.sync = processes_medium_sync;
    vfs.sync_directory = processes_medium_sync;
    vfs.lock = processes_medium_lock;
    return vfs;
}

/* With what is in segments, and with what only the log has, which a killed writer left. */
static void processes_put_and_die(void)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = 0;
    if (omendb_open(processes_path, &options, &db) == OMENDB_OK &&
        omendb_collection_open(db, "c", NULL, &collection) == OMENDB_OK &&
        processes_put_round(collection, 5) == OMENDB_OK &&
        processes_put_round(collection, 6) == OMENDB_OK)
        _exit(0);
    _exit(1);
}

TEST(a_medium_that_refuses_every_write_and_lock_can_be_read)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_vfs medium = processes_medium();
    omendb_options options = OMENDB_OPTIONS_INIT;
    int status = 0;
    CHECK_EQ_INT(processes_create("medium", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 4), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    options.vfs = &medium;
    for (int died = 0; died < 2; died++) {
        for (uint32_t io = OMENDB_IO_MAP; io <= OMENDB_IO_PREAD; io++) {
            options.read_only = 1;
            options.io = io;
            CHECK_EQ_INT(omendb_open(processes_path, &options, &db), OMENDB_OK);
            CHECK_EQ_INT(omendb_collection_open(db, "c", NULL, &collection), OMENDB_OK);
            /* The newest commit in the log is not known to be durable where it cannot be synced. */
            const int64_t round = processes_read_round(collection);
            CHECK(died ? round == 5 || round == 6 : round == 4);
            CHECK_EQ_INT(omendb_refresh(db), OMENDB_OK);
            CHECK_EQ_INT(support_check(db), OMENDB_OK);
            CHECK_EQ_INT(processes_put_round(collection, 9), OMENDB_READONLY);
            omendb_collection_close(collection);
            CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        }
        options.read_only = 0;
        CHECK(omendb_open(processes_path, &options, &db) != OMENDB_OK && db == NULL);
        const pid_t child = processes_fork();
        if (child == 0)
            processes_put_and_die();
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && !WEXITSTATUS(status));
    }
    CHECK(processes_refusals > 0);
}

TEST(links_and_other_spellings_lead_to_the_same_database)
{
    char other[4200], back[4096];
    omendb *db = NULL, *second = NULL;
    omendb_collection *collection = NULL;
    CHECK_EQ_INT(processes_create("spelled", &db, &collection), OMENDB_OK);
    snprintf(other, sizeof other, "%s-link", processes_path);
    unlink(other);
    CHECK(symlink(processes_path, other) == 0);
    CHECK_EQ_INT(processes_open(other, 0, &second), OMENDB_BUSY);
    strcat(other, "//");
    CHECK_EQ_INT(processes_open(other, 0, &second), OMENDB_BUSY);
    CHECK(getcwd(back, sizeof back) != NULL && chdir(support_folder()) == 0);
    const int relative = processes_open("spelled", 0, &second);
    const int dotted = processes_open("./spelled/", 0, &second);
    const int linked = processes_open("spelled-link", 1, &second);
    const int closed = omendb_close(second);
    CHECK(chdir(back) == 0);
    CHECK_EQ_INT(relative, OMENDB_BUSY);
    CHECK_EQ_INT(dotted, OMENDB_BUSY);
    CHECK_EQ_INT(linked, OMENDB_OK);
    CHECK_EQ_INT(closed, OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 2), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

enum processes_copying { COPY_BYTES, COPY_LINKS };

/* As cp -r does, or cp -al. */
static int processes_copy_tree(const char *from, const char *to, enum processes_copying how)
{
    char command[9000];
    support_remove(to);
    snprintf(command, sizeof command, "cp %s '%s' '%s' 2>/dev/null",
             how == COPY_LINKS ? "-al" : "-r", from, to);
    return system(command) == 0;
}

static int processes_round_at(const char *path, int64_t *round)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int status = processes_open(path, 0, &db);
    if (status == OMENDB_OK)
        status = omendb_collection_open(db, "c", NULL, &collection);
    if (status == OMENDB_OK)
        *round = processes_read_round(collection);
    if (status == OMENDB_OK)
        status = support_check(db);
    omendb_collection_close(collection);
    const int closed = omendb_close(db);
    return status == OMENDB_OK ? closed : status;
}

/* Files never change once they are written but the newest log, and a log that was read is not
 * appended to. */
TEST(databases_that_share_files_by_hard_links_go_their_own_ways)
{
    char twin[4200];
    omendb *db = NULL, *second = NULL;
    omendb_collection *collection = NULL;
    int64_t round = 0;
    CHECK_EQ_INT(processes_create("linked", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 3), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    snprintf(twin, sizeof twin, "%s-twin", processes_path);
    if (!processes_copy_tree(processes_path, twin, COPY_LINKS))
        return; /* this cp cannot */
    CHECK_EQ_INT(processes_open(processes_path, 0, &db), OMENDB_OK);
    CHECK_EQ_INT(processes_open(twin, 0, &second), OMENDB_BUSY); /* LOCK is one file */
    CHECK_EQ_INT(omendb_collection_open(db, "c", NULL, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 4), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(processes_round_at(twin, &round), OMENDB_OK);
    CHECK_EQ_INT(round, 3);
    CHECK_EQ_INT(processes_round_at(processes_path, &round), OMENDB_OK);
    CHECK_EQ_INT(round, 4);
}

TEST(a_directory_that_is_renamed_while_open_is_held)
{
    char moved[4200];
    omendb *db = NULL, *second = NULL;
    omendb_collection *collection = NULL;
    int64_t round = 0;
    CHECK_EQ_INT(processes_create("renamed", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 3), OMENDB_OK);
    snprintf(moved, sizeof moved, "%s-away", processes_path);
    support_remove(moved);
    CHECK(rename(processes_path, moved) == 0);
    CHECK_EQ_INT(processes_put_round(collection, 4), OMENDB_OK);
    CHECK_EQ_INT(processes_open(moved, 0, &second), OMENDB_BUSY);
    snprintf(processes_path, sizeof processes_path, "%.4000s", moved);
    CHECK_EQ_INT(processes_in_child(processes_child_expects_busy, NULL), 0);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 5), OMENDB_OK);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    /* As after kill -9: what was acknowledged is under the new name. */
    snprintf(moved, sizeof moved, "%s-copy", processes_path);
    CHECK(processes_copy_tree(processes_path, moved, COPY_BYTES));
    CHECK_EQ_INT(processes_round_at(moved, &round), OMENDB_OK);
    CHECK_EQ_INT(round, 5);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(processes_round_at(processes_path, &round), OMENDB_OK);
    CHECK_EQ_INT(round, 5);
}

/* Makes a database at processes_path, in another process: this one may not know of it. */
static int processes_child_makes_another(void *argument)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_options options = OMENDB_OPTIONS_INIT;
    const int rounds = *(const int *)argument;
    options.threads = 0;
    schema.dim = PROCESSES_DIM;
    int status = omendb_open(processes_path, &options, &db);
    if (status == OMENDB_OK)
        status = omendb_collection_create(db, "c", &schema, &collection);
    for (int round = 1; round <= rounds && status == OMENDB_OK; round++) {
        status = processes_put_round(collection, (uint64_t)round);
        if (status == OMENDB_OK && round % 2 == 0)
            status = omendb_checkpoint(db);
    }
    if (status != OMENDB_OK)
        fprintf(stderr, "    another one: %s: %s\n", omendb_strerror(status), omendb_errmsg());
    if (rounds % 3 == 0) /* killed: the log has the newest of it */
        _exit(status != OMENDB_OK);
    omendb_collection_close(collection);
    return omendb_close(db) != OMENDB_OK || status != OMENDB_OK;
}

enum processes_removal { REMOVE_DIRECTORY, REMOVE_FILES };

static void processes_remove(enum processes_removal how)
{
    char child[4400];
    struct dirent *entry;
    DIR *entries = how == REMOVE_FILES ? opendir(processes_path) : NULL;
    if (how == REMOVE_DIRECTORY)
        support_remove(processes_path);
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        snprintf(child, sizeof child, "%s/%s", processes_path, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(child);
    }
    if (entries != NULL)
        closedir(entries);
}

/* Everything that a handle whose directory is gone may be asked; none may harm what is there now.
 * Its commits go on into a log without a name, until a checkpoint finds out. */
static int processes_use_removed(omendb *db, omendb_collection *collection)
{
    int bad = 0, status = OMENDB_OK;
    for (uint64_t round = 100; round < 140; round++) {
        status = processes_put_round(collection, round);
        bad |= status != OMENDB_OK && status != OMENDB_POISONED;
        if (round == 103 || round % 10 == 9) {
            status = omendb_checkpoint(db);
            bad |= (status != OMENDB_POISONED) << 1;
        }
        if (round % 10 == 5)
            bad |= (omendb_optimize(db, NULL, NULL) != OMENDB_POISONED) << 2;
    }
    bad |= (strlen(omendb_errmsg()) < 20) << 3;
    bad |= (processes_read_round(collection) < 0) << 4;
    bad |= (omendb_work(db, 1000, NULL) == OMENDB_CORRUPT) << 5;
    bad |= (omendb_backup(db, support_path("never")) == OMENDB_OK) << 6;
    omendb_collection_close(collection);
    status = omendb_close(db);
    bad |= (status != OMENDB_OK && status != OMENDB_POISONED) << 7;
    return bad;
}

TEST(a_database_that_was_removed_while_open_harms_none_in_its_place)
{
    /* A merge that is being written when the files go leaves one more: nothing could be made there.
     */
    processes_threads = 0;
    for (int rounds = 0; rounds < 7; rounds++) {
        for (int how = REMOVE_DIRECTORY; how <= REMOVE_FILES; how++) {
            omendb *db = NULL;
            omendb_collection *collection = NULL;
            int64_t round = 0;
            CHECK_EQ_INT(processes_create("removed", &db, &collection), OMENDB_OK);
            for (uint64_t i = 1; i < 4; i++) {
                CHECK_EQ_INT(processes_put_round(collection, i), OMENDB_OK);
                if (i < 1 + (uint64_t)rounds)
                    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
            }
            processes_remove((enum processes_removal)how);
            if (rounds > 0)
                CHECK_EQ_INT(processes_in_child(processes_child_makes_another, &rounds), 0);
            CHECK_EQ_INT(processes_use_removed(db, collection), 0);
            if (rounds == 0 && how == REMOVE_DIRECTORY)
                CHECK(access(processes_path, F_OK) != 0);
            if (rounds == 0)
                continue;
            CHECK_EQ_INT(processes_round_at(processes_path, &round), OMENDB_OK);
            CHECK_EQ_INT(round, rounds);
        }
    }
    processes_threads = 1;
}

/* Copies of a directory that is being written: a state that was, or a refusal. */
TEST(a_copy_of_a_live_directory_is_a_prefix_or_refused)
{
    char copy[4200];
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int ends[2], child_status = 0;
    uint64_t prefixes = 0, refused = 0;
    CHECK_EQ_INT(processes_create("live", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 1), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK(pipe(ends) == 0);
    const pid_t child = processes_fork();
    if (child == 0) {
        omendb_options options = OMENDB_OPTIONS_INIT;
        options.threads = 0;
        options.wal_limit = 16 * 1024;
        close(ends[1]);
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        char byte;
        int status = omendb_open(processes_path, &options, &db);
        if (status == OMENDB_OK)
            status = omendb_collection_open(db, "c", NULL, &collection);
        for (uint64_t round = 2; status == OMENDB_OK && read(ends[0], &byte, 1) != 0; round++) {
            status = processes_put_round(collection, round);
            if (status == OMENDB_OK && round % 50 == 0)
                status = omendb_optimize(db, NULL, NULL);
        }
        omendb_collection_close(collection);
        _exit(status != OMENDB_OK || omendb_close(db) != OMENDB_OK);
    }
    close(ends[0]);
    snprintf(copy, sizeof copy, "%s-copy", processes_path);
    int bad = 0;
    for (uint64_t i = 0; i < support_scaled(60, 10) && !bad; i++) {
        int64_t round = -1;
        processes_copy_tree(processes_path, copy, COPY_BYTES);
        const int status = processes_round_at(copy, &round);
        prefixes += status == OMENDB_OK && round >= 1;
        refused += status == OMENDB_CORRUPT;
        bad = status != OMENDB_CORRUPT && (status != OMENDB_OK || round < 1);
        if (bad)
            fprintf(stderr, "    %s, round %lld: %s\n", omendb_strerror(status), (long long)round,
                    omendb_errmsg());
    }
    close(ends[1]);
    waitpid(child, &child_status, 0);
    CHECK_EQ_INT(bad, 0);
    CHECK(WIFEXITED(child_status) && WEXITSTATUS(child_status) == 0);
    CHECK(prefixes > 0);
    printf("  %llu prefixes, %llu refused\n", (unsigned long long)prefixes,
           (unsigned long long)refused);
}

TEST_MAIN(a_second_writer_gets_busy_at_once, a_writer_in_a_process_of_its_own_gets_busy,
          a_forked_child_may_open_what_its_parent_closed,
          another_name_of_the_same_directory_is_the_same_database,
          links_and_other_spellings_lead_to_the_same_database,
          databases_that_share_files_by_hard_links_go_their_own_ways,
          every_call_on_an_inherited_handle_is_misuse_and_harms_nothing,
          the_table_of_calls_has_every_function_that_takes_a_handle,
          a_forked_child_closes_what_it_inherited_and_opens_its_own,
          a_forked_child_does_not_hold_the_lock,
          a_parent_that_was_killed_is_not_locked_out_by_its_child,
          a_reader_in_another_process_follows_and_sees_no_half_batch,
          a_reader_never_sees_half_of_a_transaction, readers_open_while_the_writer_checkpoints,
          a_reader_that_checkpoints_overtake_sees_what_was_acknowledged,
          a_reader_that_the_writer_left_behind_finds_no_damage,
          a_reader_meets_again_a_collection_that_the_log_made,
          a_reader_that_does_not_refresh_keeps_its_state,
          files_of_a_reader_stay_when_the_writer_dropped_merged_and_left,
          a_reader_that_is_stopped_does_not_stop_the_writer,
          a_directory_that_cannot_be_written_can_be_read,
          a_medium_that_refuses_every_write_and_lock_can_be_read, a_moved_directory_opens_as_before,
          a_directory_that_is_renamed_while_open_is_held,
          a_database_that_was_removed_while_open_harms_none_in_its_place,
          a_copy_of_a_live_directory_is_a_prefix_or_refused)
