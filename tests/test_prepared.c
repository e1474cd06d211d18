/* test_prepared.c: between the two phases of a commit changes are hidden, locked and safe; an
 * outcome is given once, applied whole, and remembered until it is forgotten. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include "support.h"
#include "test.h"

#define DIM 8

static omendb *db;
static omendb_collection *left, *right;
static char path[4096];

static int open_at(omendb_options *options)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = DIM;
    int status = omendb_open(path, options, &db);
    if (status == OMENDB_OK)
        status = options->read_only ? omendb_collection_open(db, "left", NULL, &left)
                                    : omendb_collection_open_or_create(db, "left", &schema, &left);
    if (status == OMENDB_OK)
        status = options->read_only
                     ? omendb_collection_open(db, "right", NULL, &right)
                     : omendb_collection_open_or_create(db, "right", &schema, &right);
    return status;
}

static int open_again(void)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = 0;
    return open_at(&options);
}

static int close_all(void)
{
    omendb_collection_close(left);
    omendb_collection_close(right);
    left = right = NULL;
    return omendb_close(db);
}

/* left: records 0 to 9; right: nothing */
static int open_new(const char *name)
{
    snprintf(path, sizeof path, "%s", support_path(name));
    int status = open_again();
    for (uint64_t id = 0; id < 10 && status == OMENDB_OK; id++)
        status = support_put(left, NULL, id, id, DIM);
    return status;
}

/* Moves record `id` from left to right, replaces id + 1, and adds id + 100. */
static int prepare_move(const char *name, uint64_t id)
{
    omendb_txn *txn;
    int status = omendb_txn_begin(db, OMENDB_READ_WRITE, &txn);
    if (status == OMENDB_OK)
        status = omendb_delete(left, txn, id);
    if (status == OMENDB_OK)
        status = support_put(right, txn, id, id, DIM);
    if (status == OMENDB_OK)
        status = support_put(left, txn, id + 1, 1000 + id, DIM);
    if (status == OMENDB_OK)
        status = support_put(right, txn, id + 100, 100 + id, DIM);
    return status == OMENDB_OK ? omendb_txn_prepare(txn, name) : status;
}

static int is_there(omendb_collection *collection, uint64_t id)
{
    return omendb_get(collection, NULL, id, OMENDB_F32, NULL) == OMENDB_OK;
}

static int holds_value(omendb_collection *collection, uint64_t id, uint64_t value)
{
    float wanted[DIM], found[DIM];
    support_vector(value, DIM, wanted);
    return omendb_get(collection, NULL, id, OMENDB_F32, found) == OMENDB_OK &&
           memcmp(wanted, found, sizeof found) == 0;
}

static int has_moved(uint64_t id)
{
    return !is_there(left, id) && holds_value(right, id, id) &&
           holds_value(left, id + 1, 1000 + id) && holds_value(right, id + 100, 100 + id);
}

static int has_not_moved(uint64_t id)
{
    return holds_value(left, id, id) && holds_value(left, id + 1, id + 1) && !is_there(right, id) &&
           !is_there(right, id + 100);
}

/* The state of a name; 0: unknown. */
static int state_of(const char *wanted)
{
    char name[OMENDB_PREPARED_NAME_MAX + 1];
    int state;
    for (size_t i = 0; omendb_prepared_name(db, i, name, sizeof name, &state) == OMENDB_OK; i++)
        if (strcmp(name, wanted) == 0)
            return state;
    return 0;
}

TEST(what_is_prepared_is_hidden_until_it_is_committed_whole)
{
    uint64_t count;
    CHECK_EQ_INT(open_new("hidden"), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("transfer", 3), OMENDB_OK);
    CHECK(has_not_moved(3));
    CHECK_EQ_INT(state_of("transfer"), OMENDB_PREPARED_WAITING);
    CHECK_EQ_INT(omendb_commit_prepared(db, "transfer"), OMENDB_OK);
    CHECK(has_moved(3));
    CHECK_EQ_INT(omendb_count(left, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 9);
    CHECK_EQ_INT(omendb_count(right, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 2);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(what_is_rolled_back_leaves_nothing)
{
    CHECK_EQ_INT(open_new("rolled-back"), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("transfer", 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_rollback_prepared(db, "transfer"), OMENDB_OK);
    CHECK(has_not_moved(3));
    CHECK_EQ_INT(prepare_move("another", 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_commit_prepared(db, "another"), OMENDB_OK);
    CHECK(has_moved(3));
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(an_outcome_is_remembered_until_it_is_forgotten)
{
    CHECK_EQ_INT(open_new("remembered"), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("a", 1), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("b", 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_forget_prepared(db, "a"), OMENDB_BUSY);
    CHECK_EQ_INT(omendb_commit_prepared(db, "a"), OMENDB_OK);
    CHECK_EQ_INT(omendb_rollback_prepared(db, "b"), OMENDB_OK);
    for (int round = 0; round < 3; round++) {
        CHECK_EQ_INT(omendb_commit_prepared(db, "a"), OMENDB_OK);
        CHECK_EQ_INT(omendb_rollback_prepared(db, "a"), OMENDB_CONFLICT);
        CHECK_EQ_INT(omendb_rollback_prepared(db, "b"), OMENDB_OK);
        CHECK_EQ_INT(omendb_commit_prepared(db, "b"), OMENDB_CONFLICT);
        CHECK_EQ_INT(omendb_commit_prepared(db, "c"), OMENDB_NOTFOUND);
        CHECK_EQ_INT(prepare_move("a", 5), OMENDB_EXISTS);
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
        CHECK_EQ_INT(close_all(), OMENDB_OK);
        CHECK_EQ_INT(open_again(), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_forget_prepared(db, "a"), OMENDB_OK);
    CHECK_EQ_INT(omendb_forget_prepared(db, "a"), OMENDB_NOTFOUND);
    CHECK_EQ_INT(state_of("a"), 0);
    CHECK_EQ_INT(state_of("b"), OMENDB_PREPARED_ROLLED_BACK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    CHECK_EQ_INT(state_of("a"), 0);
    CHECK_EQ_INT(state_of("b"), OMENDB_PREPARED_ROLLED_BACK);
    CHECK_EQ_INT(prepare_move("a", 5), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(records_of_a_prepared_transaction_are_locked)
{
    omendb_txn *txn;
    omendb_record record = OMENDB_RECORD_INIT;
    float vector[DIM];
    size_t deleted;
    const uint64_t both[] = {5, 4};
    CHECK_EQ_INT(open_new("locked"), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("transfer", 3), OMENDB_OK);
    CHECK_EQ_INT(support_put(left, NULL, 3, 7, DIM), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "transfer") != NULL);
    CHECK_EQ_INT(omendb_delete(left, NULL, 4), OMENDB_BUSY);
    CHECK_EQ_INT(omendb_delete_batch(left, NULL, 2, both, &deleted), OMENDB_BUSY);
    CHECK(is_there(left, 5));
    CHECK_EQ_INT(support_put(right, NULL, 103, 7, DIM), OMENDB_BUSY);
    CHECK_EQ_INT(support_put(right, NULL, 4, 7, DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(support_put(left, txn, 3, 9, DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_BUSY);
    CHECK_EQ_INT(prepare_move("other", 2), OMENDB_BUSY);
    CHECK_EQ_INT(omendb_collection_drop(db, "left"), OMENDB_BUSY);
    CHECK_EQ_INT(omendb_collection_drop(db, "right"), OMENDB_BUSY);
    /* An automatic id is none of those that it may add. */
    support_vector(1, DIM, vector);
    record.vector = vector;
    uint64_t id = 0;
    CHECK_EQ_INT(omendb_add(right, NULL, &record, &id), OMENDB_OK);
    CHECK_EQ_INT(id, 104);
    CHECK_EQ_INT(omendb_rollback_prepared(db, "transfer"), OMENDB_OK);
    CHECK_EQ_INT(support_put(left, NULL, 3, 7, DIM), OMENDB_OK);
    CHECK_EQ_INT(support_put(right, NULL, 103, 7, DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_drop(db, "right"), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(the_first_committer_wins_against_one_that_prepares_later)
{
    omendb_txn *txn;
    CHECK_EQ_INT(open_new("first"), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(support_put(left, txn, 3, 9, DIM), OMENDB_OK);
    CHECK_EQ_INT(support_put(left, NULL, 3, 8, DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "late"), OMENDB_CONFLICT);
    CHECK_EQ_INT(state_of("late"), 0);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(support_put(left, txn, 3, 9, DIM), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("early", 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_commit_prepared(db, "early"), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_CONFLICT);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(arguments_are_checked_and_leave_the_transaction_open)
{
    char name[300];
    omendb_txn *txn;
    memset(name, 'x', sizeof name);
    name[256] = 0;
    CHECK_EQ_INT(open_new("arguments"), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(NULL, "x"), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, NULL), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_txn_prepare(txn, ""), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_txn_prepare(txn, name), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "a\nb"), OMENDB_INVALID);
    name[255] = 0;
    CHECK_EQ_INT(omendb_txn_prepare(txn, name), OMENDB_OK);
    CHECK_EQ_INT(state_of(name), OMENDB_PREPARED_WAITING);
    CHECK_EQ_INT(omendb_prepared_name(db, 0, name, 255, NULL), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_prepared_name(db, 0, name, 256, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_prepared_name(db, 1, name, 256, NULL), OMENDB_DONE);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "reader"), OMENDB_READONLY);
    omendb_txn_rollback(txn);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

/* Runs in a child that ends without closing anything. */
static int in_a_process_that_dies(void (*run)(void))
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        run();
        _exit(test_failures != 0);
    }
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) &&
           WEXITSTATUS(status) == 0;
}

static void prepare_and_rotate(void)
{
    CHECK_EQ_INT(open_new("crashed"), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("kept", 1), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("committed", 3), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("undone", 5), OMENDB_OK);
    for (uint64_t i = 0; i < 3; i++) {
        CHECK_EQ_INT(support_put(left, NULL, 50 + i, 50 + i, DIM), OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_commit_prepared(db, "committed"), OMENDB_OK);
    CHECK_EQ_INT(omendb_rollback_prepared(db, "undone"), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
}

TEST(what_is_prepared_survives_rotation_and_crash_with_its_locks)
{
    snprintf(path, sizeof path, "%s", support_path("crashed"));
    CHECK(in_a_process_that_dies(prepare_and_rotate));
    for (int round = 0; round < 3; round++) {
        CHECK_EQ_INT(open_again(), OMENDB_OK);
        CHECK_EQ_INT(state_of("kept"), OMENDB_PREPARED_WAITING);
        CHECK_EQ_INT(state_of("committed"), OMENDB_PREPARED_COMMITTED);
        CHECK_EQ_INT(state_of("undone"), OMENDB_PREPARED_ROLLED_BACK);
        CHECK(has_not_moved(1));
        CHECK(has_moved(3));
        CHECK(has_not_moved(5));
        CHECK_EQ_INT(support_put(left, NULL, 1, 7, DIM), OMENDB_BUSY);
        CHECK_EQ_INT(support_put(left, NULL, 5, 5, DIM), OMENDB_OK);
        CHECK_EQ_INT(support_check(db), OMENDB_OK);
        CHECK_EQ_INT(close_all(), OMENDB_OK);
    }
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    CHECK_EQ_INT(omendb_commit_prepared(db, "kept"), OMENDB_OK);
    CHECK(has_moved(1));
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    CHECK(has_moved(1));
    CHECK_EQ_INT(state_of("kept"), OMENDB_PREPARED_COMMITTED);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(a_reader_follows_what_is_prepared_and_its_outcome)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_txn *txn;
    CHECK_EQ_INT(open_new("followed"), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("transfer", 3), OMENDB_OK);
    omendb *writer = db;
    omendb_collection *writer_left = left, *writer_right = right;
    options.read_only = 1;
    CHECK_EQ_INT(open_at(&options), OMENDB_OK);
    CHECK_EQ_INT(state_of("transfer"), OMENDB_PREPARED_WAITING);
    CHECK(has_not_moved(3));
    CHECK_EQ_INT(omendb_commit_prepared(db, "transfer"), OMENDB_READONLY);
    CHECK_EQ_INT(omendb_checkpoint(writer), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(db), OMENDB_OK);
    CHECK_EQ_INT(state_of("transfer"), OMENDB_PREPARED_WAITING);
    CHECK_EQ_INT(omendb_commit_prepared(writer, "transfer"), OMENDB_OK);
    CHECK(has_not_moved(3));
    CHECK_EQ_INT(omendb_refresh(db), OMENDB_OK);
    CHECK(has_moved(3));
    CHECK_EQ_INT(state_of("transfer"), OMENDB_PREPARED_COMMITTED);
    CHECK_EQ_INT(omendb_forget_prepared(writer, "transfer"), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(db), OMENDB_OK);
    CHECK_EQ_INT(state_of("transfer"), 0);
    /* The next log tells nothing of a name that came and went in the one before. */
    CHECK_EQ_INT(omendb_txn_begin(writer, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(support_put(writer_left, txn, 1, 7, DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "short"), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(db), OMENDB_OK);
    CHECK_EQ_INT(state_of("short"), OMENDB_PREPARED_WAITING);
    CHECK_EQ_INT(omendb_rollback_prepared(writer, "short"), OMENDB_OK);
    CHECK_EQ_INT(omendb_forget_prepared(writer, "short"), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(writer), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(db), OMENDB_OK);
    CHECK_EQ_INT(state_of("short"), 0);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    db = writer;
    left = writer_left;
    right = writer_right;
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

/* Locks come and go in a table whose slots collide. */
TEST(thousands_can_wait_and_be_settled_in_any_order)
{
    enum { COUNT = 2000 };
    static uint32_t order[COUNT];
    struct support_random random = {support_seed(5)};
    char name[32];
    omendb_txn *txn;
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.sync = OMENDB_SYNC_OFF;
    snprintf(path, sizeof path, "%s", support_path("thousands"));
    CHECK_EQ_INT(open_at(&options), OMENDB_OK);
    for (uint32_t i = 0; i < COUNT; i++) {
        snprintf(name, sizeof name, "txn-%u", i);
        CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
        for (uint64_t r = 0; r < 3; r++)
            CHECK_EQ_INT(support_put(left, txn, i * UINT64_C(3) + r, i, DIM), OMENDB_OK);
        CHECK_EQ_INT(omendb_txn_prepare(txn, name), OMENDB_OK);
        order[i] = i;
    }
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    CHECK_EQ_INT(open_at(&options), OMENDB_OK);
    for (uint32_t i = COUNT; i > 1; i--) {
        uint32_t with = (uint32_t)support_below(&random, i), kept = order[i - 1];
        order[i - 1] = order[with];
        order[with] = kept;
    }
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t at = order[i];
        snprintf(name, sizeof name, "txn-%u", at);
        CHECK_EQ_INT(support_put(left, NULL, at * UINT64_C(3) + 1, 7, DIM), OMENDB_BUSY);
        CHECK_EQ_INT(at % 2 ? omendb_commit_prepared(db, name) : omendb_rollback_prepared(db, name),
                     OMENDB_OK);
        CHECK_EQ_INT(is_there(left, at * UINT64_C(3)), (int)(at % 2));
        CHECK_EQ_INT(support_put(left, NULL, at * UINT64_C(3) + 1, at, DIM), OMENDB_OK);
        if (i % 7 == 0)
            CHECK_EQ_INT(omendb_forget_prepared(db, name), OMENDB_OK);
    }
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(locks_take_no_memory_once_all_are_settled)
{
    omendb_txn *txn;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_stats before = OMENDB_STATS_INIT, after = OMENDB_STATS_INIT;
    options.sync = OMENDB_SYNC_OFF;
    options.threads = 0;
    snprintf(path, sizeof path, "%s", support_path("locks"));
    CHECK_EQ_INT(open_at(&options), OMENDB_OK);
    CHECK_EQ_INT(support_put(left, NULL, 0, 0, DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(db, &before), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (uint64_t id = 0; id < 20000; id++)
        CHECK_EQ_INT(support_put(left, txn, id, id, DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "many"), OMENDB_OK);
    CHECK_EQ_INT(omendb_rollback_prepared(db, "many"), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(db, &after), OMENDB_OK);
    CHECK(after.memory_bytes < before.memory_bytes + (64 << 10));
    CHECK_EQ_INT(support_put(left, NULL, 7, 7, DIM), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

static void *settle(void *argument)
{
    int *status = argument;
    do
        *status = omendb_commit_prepared(db, "shared");
    while (*status == OMENDB_BUSY);
    return NULL;
}

TEST(threads_that_give_the_same_outcome_all_see_it)
{
    for (int round = 0; round < 50; round++) {
        pthread_t threads[3];
        int statuses[3];
        CHECK_EQ_INT(open_new("same"), OMENDB_OK);
        CHECK_EQ_INT(prepare_move("shared", 3), OMENDB_OK);
        for (int i = 0; i < 3; i++)
            CHECK_EQ_INT(pthread_create(&threads[i], NULL, settle, &statuses[i]), 0);
        for (int i = 0; i < 3; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < 3; i++)
            CHECK_EQ_INT(statuses[i], OMENDB_OK);
        CHECK(has_moved(3));
        CHECK_EQ_INT(close_all(), OMENDB_OK);
    }
}

TEST(a_backup_takes_along_what_is_prepared)
{
    char source[4096], copy[4096];
    CHECK_EQ_INT(open_new("backed-up"), OMENDB_OK);
    memcpy(source, path, sizeof source);
    snprintf(copy, sizeof copy, "%s", support_path("backup"));
    CHECK_EQ_INT(prepare_move("a", 1), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("b", 3), OMENDB_OK);
    for (int round = 0; round < 3; round++) {
        omendb_options options = OMENDB_OPTIONS_INIT;
        CHECK_EQ_INT(omendb_backup(db, copy), OMENDB_OK);
        CHECK_EQ_INT(close_all(), OMENDB_OK);
        options.read_only = 1;
        memcpy(path, copy, sizeof path);
        CHECK_EQ_INT(open_at(&options), OMENDB_OK);
        CHECK_EQ_INT(state_of("a"),
                     round < 2 ? OMENDB_PREPARED_WAITING : OMENDB_PREPARED_COMMITTED);
        CHECK_EQ_INT(state_of("b"),
                     round == 0 ? OMENDB_PREPARED_WAITING : OMENDB_PREPARED_ROLLED_BACK);
        CHECK(round < 2 ? has_not_moved(1) : has_moved(1));
        CHECK(has_not_moved(3));
        CHECK_EQ_INT(support_check(db), OMENDB_OK);
        CHECK_EQ_INT(close_all(), OMENDB_OK);
        memcpy(path, source, sizeof path);
        CHECK_EQ_INT(open_again(), OMENDB_OK);
        if (round == 0)
            CHECK_EQ_INT(omendb_rollback_prepared(db, "b"), OMENDB_OK);
        if (round == 1)
            CHECK_EQ_INT(omendb_commit_prepared(db, "a"), OMENDB_OK);
    }
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    memcpy(path, copy, sizeof path);
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    CHECK_EQ_INT(omendb_forget_prepared(db, "a"), OMENDB_OK);
    CHECK(has_moved(1));
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(a_database_in_memory_prepares_too)
{
    snprintf(path, sizeof path, ":memory:");
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    for (uint64_t id = 0; id < 10; id++)
        CHECK_EQ_INT(support_put(left, NULL, id, id, DIM), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("a", 1), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("b", 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_commit_prepared(db, "a"), OMENDB_OK);
    CHECK(has_moved(1));
    CHECK(has_not_moved(3));
    CHECK_EQ_INT(omendb_backup(db, support_path("saved")), OMENDB_BUSY);
    CHECK_EQ_INT(omendb_rollback_prepared(db, "b"), OMENDB_OK);
    CHECK_EQ_INT(omendb_forget_prepared(db, "a"), OMENDB_OK);
    CHECK_EQ_INT(omendb_forget_prepared(db, "b"), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(db, support_path("saved")), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

/* ------------------------------------------------------------------ a device that is slow, or full
 */

static atomic_int syncs_are_held, waits_in_sync, manifests_fail;

static void sleep_ms(long ms)
{
    struct timespec time = {0, ms * 1000000};
    nanosleep(&time, NULL);
}

static int slow_sync(void *context, void *file)
{
    const omendb_vfs *real = omendb_default_vfs();
    while (atomic_load(&syncs_are_held)) {
        atomic_store(&waits_in_sync, 1);
        sleep_ms(1);
    }
    return real->sync(context, file);
}

static int full_open(void *context, void *directory, const char *name, int flags, void **file)
{
    const omendb_vfs *real = omendb_default_vfs();
    if (atomic_load(&manifests_fail) && strncmp(name, "MANIFEST-", 9) == 0 &&
        (flags & OMENDB_OPEN_CREATE) != 0)
        return OMENDB_FULL;
    return real->open(context, directory, name, flags, file);
}

static int open_on_device(const char *name)
{
    static omendb_vfs vfs;
    omendb_options options = OMENDB_OPTIONS_INIT;
    vfs = *omendb_default_vfs();
    vfs.sync = slow_sync;
    vfs.open = full_open;
    options.vfs = &vfs;
    options.threads = 0;
    snprintf(path, sizeof path, "%s", support_path(name));
    int status = open_at(&options);
    for (uint64_t id = 0; id < 10 && status == OMENDB_OK; id++)
        status = support_put(left, NULL, id, id, DIM);
    return status;
}

struct told {
    int (*ask)(void);
    int status;
    atomic_int done;
    pthread_t thread;
};

static void *ask_in_thread(void *argument)
{
    struct told *told = argument;
    told->status = told->ask();
    atomic_store(&told->done, 1);
    return NULL;
}

static int ask_to_roll_back(void)
{
    return omendb_rollback_prepared(db, "a");
}

static int ask_to_forget(void)
{
    return omendb_forget_prepared(db, "b");
}

static int ask_to_commit(void)
{
    return omendb_commit_prepared(db, "a");
}

static int ask_to_commit_forgotten(void)
{
    return omendb_commit_prepared(db, "b");
}

static int ask_for_state(void)
{
    return state_of("a");
}

static void begin_to_ask(struct told *told, int (*ask)(void))
{
    told->ask = ask;
    atomic_store(&told->done, 0);
    CHECK_EQ_INT(pthread_create(&told->thread, NULL, ask_in_thread, told), 0);
}

/* What `step` does is in the log but not on the device: nobody is told of it before it is. */
static void check_told_after_sync(int (*step)(void), int (*ask)(void), int expected)
{
    struct told first, second;
    atomic_store(&waits_in_sync, 0);
    atomic_store(&syncs_are_held, 1);
    begin_to_ask(&first, step);
    while (!atomic_load(&waits_in_sync))
        sleep_ms(1);
    begin_to_ask(&second, ask);
    sleep_ms(50);
    CHECK(!atomic_load(&second.done));
    atomic_store(&syncs_are_held, 0);
    pthread_join(first.thread, NULL);
    pthread_join(second.thread, NULL);
    CHECK_EQ_INT(first.status, OMENDB_OK);
    CHECK_EQ_INT(second.status, expected);
}

TEST(an_outcome_is_told_to_nobody_before_it_is_durable)
{
    CHECK_EQ_INT(open_on_device("told"), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("a", 1), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("b", 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_commit_prepared(db, "b"), OMENDB_OK);
    check_told_after_sync(ask_to_roll_back, ask_to_commit, OMENDB_CONFLICT);
    check_told_after_sync(ask_to_forget, ask_to_commit_forgotten, OMENDB_NOTFOUND);
    CHECK_EQ_INT(omendb_forget_prepared(db, "a"), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("a", 1), OMENDB_OK);
    check_told_after_sync(ask_to_commit, ask_for_state, OMENDB_PREPARED_COMMITTED);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

/* Each log that a checkpoint begins before it fails would stay, with another copy of what waits. */
TEST(checkpoints_that_fail_do_not_pile_up_logs)
{
    CHECK_EQ_INT(open_on_device("full"), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("a", 1), OMENDB_OK);
    CHECK_EQ_INT(prepare_move("b", 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_rollback_prepared(db, "b"), OMENDB_OK);
    atomic_store(&manifests_fail, 1);
    for (int i = 0; i < 1100; i++)
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_FULL);
    CHECK_EQ_INT(support_put(left, NULL, 20, 20, DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_FULL);
    (void)close_all(); /* which tries, too */
    atomic_store(&manifests_fail, 0);
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    CHECK_EQ_INT(state_of("a"), OMENDB_PREPARED_WAITING);
    CHECK_EQ_INT(state_of("b"), OMENDB_PREPARED_ROLLED_BACK);
    CHECK_EQ_INT(omendb_commit_prepared(db, "a"), OMENDB_OK);
    CHECK(has_moved(1));
    CHECK(holds_value(left, 20, 20));
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST_MAIN(what_is_prepared_is_hidden_until_it_is_committed_whole,
          what_is_rolled_back_leaves_nothing, an_outcome_is_remembered_until_it_is_forgotten,
          records_of_a_prepared_transaction_are_locked,
          the_first_committer_wins_against_one_that_prepares_later,
          arguments_are_checked_and_leave_the_transaction_open,
          what_is_prepared_survives_rotation_and_crash_with_its_locks,
          a_reader_follows_what_is_prepared_and_its_outcome,
          thousands_can_wait_and_be_settled_in_any_order, locks_take_no_memory_once_all_are_settled,
          threads_that_give_the_same_outcome_all_see_it, a_backup_takes_along_what_is_prepared,
          a_database_in_memory_prepares_too, an_outcome_is_told_to_nobody_before_it_is_durable,
          checkpoints_that_fail_do_not_pile_up_logs)
