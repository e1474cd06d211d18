/* test_processes.c: what other processes, and forked ones, may do with a database.
 *
 * A reader in another process follows a writer that commits, checkpoints and merges: it must never
 * see half a batch, never go back, and see everything that was acknowledged before its refresh. */
#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "support.h"
#include "test.h"

#define PROCESSES_DIM   6
#define PROCESSES_BATCH 25

static char processes_path[4096];

static int processes_open(const char *path, int read_only, omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.read_only = (uint32_t)read_only;
    options.must_exist = (uint32_t)read_only;
    options.wal_limit = 64 * 1024;
    options.threads = 1;
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
        alarm(100);
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
};

static int processes_child_uses_handles(void *argument)
{
    struct processes_handles *handles = argument;
    float vector[PROCESSES_DIM];
    uint64_t count = 0;
    omendb_txn *txn = NULL;
    omendb *own = NULL;
    omendb_collection *collection = NULL;
    int bad = 0;
    bad |= (omendb_count(handles->collection, NULL, &count) != OMENDB_MISUSE) << 0;
    bad |= (omendb_get(handles->collection, NULL, 0, OMENDB_F32, vector) != OMENDB_MISUSE) << 1;
    bad |= (processes_put_round(handles->collection, 99) != OMENDB_MISUSE) << 2;
    bad |= (omendb_txn_begin(handles->db, OMENDB_READ_ONLY, &txn) != OMENDB_MISUSE) << 3;
    bad |= (omendb_checkpoint(handles->db) != OMENDB_MISUSE) << 4;
    bad |= (processes_open(processes_path, 0, &own) != OMENDB_BUSY) << 5;
    const int closed = omendb_close(handles->db);
    bad |= (closed != OMENDB_OK) << 6;
    if (processes_open(processes_path, 1, &own) != OMENDB_OK ||
        omendb_collection_open(own, "c", NULL, &collection) != OMENDB_OK ||
        processes_read_round(collection) != 1)
        bad |= 1 << 7;
    omendb_collection_close(collection);
    omendb_close(own);
    return bad;
}

TEST(a_forked_child_gets_misuse_and_harms_nothing)
{
    struct processes_handles handles = {NULL, NULL, NULL};
    CHECK_EQ_INT(processes_create("fork", &handles.db, &handles.collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(handles.collection, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(handles.db), OMENDB_OK);
    CHECK_EQ_INT(processes_in_child(processes_child_uses_handles, &handles), 0);
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

/* ------------------------------------------------------------------------------------------------
 * readers */

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
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int ends[2], child_status = 0;
    const uint64_t rounds = support_scaled(400, 40);
    CHECK_EQ_INT(processes_create("readers", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK(pipe(ends) == 0);
    const pid_t child = processes_fork();
    if (child == 0)
        _exit(processes_child_follows(ends));
    close(ends[0]);
    signal(SIGPIPE, SIG_IGN);
    int status = OMENDB_OK;
    for (uint64_t round = 2; round < rounds && status == OMENDB_OK; round++) {
        status = processes_put_round(collection, round);
        if (status == OMENDB_OK && round % 13 == 0)
            status = omendb_checkpoint(db);
        if (status == OMENDB_OK && round % 37 == 0)
            status = omendb_optimize(db, NULL, NULL);
        if (status == OMENDB_OK && write(ends[1], &round, sizeof round) != (ssize_t)sizeof round)
            break;
    }
    close(ends[1]);
    waitpid(child, &child_status, 0);
    CHECK_EQ_INT(status, OMENDB_OK);
    CHECK(WIFEXITED(child_status) && WEXITSTATUS(child_status) == 0);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
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
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int ends[2], child_status = 0, status = OMENDB_OK;
    const uint64_t rounds = support_scaled(200, 30);
    CHECK_EQ_INT(processes_create("reopening", &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(processes_put_round(collection, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK(pipe(ends) == 0);
    const pid_t child = processes_fork();
    if (child == 0)
        _exit(processes_child_reopens(ends));
    close(ends[0]);
    signal(SIGPIPE, SIG_IGN);
    for (uint64_t round = 2; round < rounds && status == OMENDB_OK; round++) {
        status = processes_put_round(collection, round);
        if (status == OMENDB_OK && round % 3 == 0)
            status = omendb_checkpoint(db);
        if (status == OMENDB_OK && write(ends[1], &round, sizeof round) != (ssize_t)sizeof round)
            break;
    }
    close(ends[1]);
    waitpid(child, &child_status, 0);
    CHECK_EQ_INT(status, OMENDB_OK);
    CHECK(WIFEXITED(child_status) && WEXITSTATUS(child_status) == 0);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
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

TEST_MAIN(a_second_writer_gets_busy_at_once, a_writer_in_a_process_of_its_own_gets_busy,
          a_forked_child_may_open_what_its_parent_closed,
          another_name_of_the_same_directory_is_the_same_database,
          a_forked_child_gets_misuse_and_harms_nothing, a_forked_child_does_not_hold_the_lock,
          a_reader_in_another_process_follows_and_sees_no_half_batch,
          readers_open_while_the_writer_checkpoints, a_reader_that_does_not_refresh_keeps_its_state,
          a_directory_that_cannot_be_written_can_be_read, a_moved_directory_opens_as_before)
