/* test_arguments.c: arguments at the edge of what is allowed, and what a call says of those beyond;
 * reads within a transaction; and a sleep that is interrupted.
 *
 * The database is in memory, or on a file system whose clock stands still. */
#include "internals.h"

#include <signal.h>
#include <sys/time.h>

#include "ruins.h"
#include "test.h"

#define ARGUMENTS_DIM 4

static omendb *arguments_db;
static omendb_collection *arguments_collection;

static int arguments_begin(const omendb_vfs *vfs)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = ARGUMENTS_DIM;
    options.vfs = vfs;
    options.threads = 0;
    int status = omendb_open(vfs == NULL ? ":memory:" : "/own", &options, &arguments_db);
    if (status == OMENDB_OK)
        status = omendb_collection_create(arguments_db, "a", &schema, &arguments_collection);
    for (uint64_t id = 0; id < 20 && status == OMENDB_OK; id++)
        status = support_put(arguments_collection, NULL, id, id + 1, ARGUMENTS_DIM);
    return status == OMENDB_OK;
}

static int arguments_end(void)
{
    omendb_collection_close(arguments_collection);
    return omendb_close(arguments_db) == OMENDB_OK;
}

TEST(initialising_nothing_is_nothing)
{
    omendb_record record;
    omendb_query query;
    omendb_record_init(NULL);
    omendb_query_init(NULL);
    omendb_salvage_result_init(NULL);
    omendb_record_init(&record);
    omendb_query_init(&query);
    CHECK(record.struct_size == sizeof record && record.id == OMENDB_ID_AUTO);
    CHECK(query.struct_size == sizeof query && query.id == OMENDB_ID_AUTO);
    CHECK_EQ_STR(omendb_scalar_name(-1), "unknown type");
}

TEST(names_are_of_whole_characters)
{
    static const char *const wrong[] = {"a\x7f", "\xc1\x81", "\xc0\x80", "\xf5\x80\x80\x80",
                                        "\xff",  "a\xc3",    "\x1f"};
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *collection = NULL;
    schema.dim = ARGUMENTS_DIM;
    CHECK(arguments_begin(NULL));
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        CHECK_EQ_INT(omendb_collection_create(arguments_db, wrong[i], &schema, &collection),
                     OMENDB_INVALID);
        CHECK(strstr(omendb_errmsg(), "control character or bad UTF-8 at byte") != NULL);
    }
    CHECK(arguments_end());
}

TEST(a_name_that_does_not_fit_says_what_it_needs)
{
    char name[8] = "";
    CHECK(arguments_begin(NULL));
    CHECK_EQ_INT(omendb_collection_name(arguments_db, 0, name, 1), OMENDB_INVALID);
    CHECK(strstr(omendb_errmsg(), "capacity is 1; the name needs 2 bytes") != NULL);
    CHECK_EQ_INT(omendb_collection_name(arguments_db, 0, name, 2), OMENDB_OK);
    CHECK_EQ_STR(name, "a");
    CHECK_EQ_INT(omendb_prepared_name(arguments_db, 0, NULL, 8, NULL), OMENDB_MISUSE);
    CHECK(arguments_end());
}

TEST(a_vfs_without_a_function_is_refused)
{
    struct crash_fs *disk = crash_fs_create(0);
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db = NULL;
    omendb_vfs vfs = disk->vfs;
    options.vfs = &vfs;
    vfs.close_directory = NULL;
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_MISUSE);
    vfs = disk->vfs;
    vfs.now_us = NULL;
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_MISUSE);
    CHECK(db == NULL && strstr(omendb_errmsg(), "a function of options.vfs") != NULL);
    crash_fs_destroy(disk);
}

TEST(salvage_needs_two_paths_and_nothing_else)
{
    char from[4200], to[4200];
    omendb *db = NULL;
    CHECK_EQ_INT(omendb_salvage("x", "", NULL, NULL, NULL, NULL), OMENDB_INVALID);
    snprintf(from, sizeof from, "%s", support_path("salvage-from"));
    snprintf(to, sizeof to, "%s", support_path("salvage-to"));
    CHECK_EQ_INT(omendb_open(from, NULL, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_salvage(from, to, NULL, NULL, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_open(to, NULL, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * within a transaction */

/* A cursor shows the records of its transaction as they were when it was opened; one that was
 * deleted since is told, and the cursor stays where it is. */
TEST(a_cursor_tells_what_its_transaction_deleted_since)
{
    float vector[ARGUMENTS_DIM];
    omendb_txn *txn = NULL;
    omendb_rows *rows = NULL;
    uint64_t id = 0, seen = 0;
    CHECK(arguments_begin(NULL));
    CHECK_EQ_INT(omendb_txn_begin(arguments_db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (uint64_t own = 5; own < 30; own += 5)
        CHECK_EQ_INT(support_put(arguments_collection, txn, own, own + 70, ARGUMENTS_DIM),
                     OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(arguments_collection, txn, 0, UINT64_MAX - 1, &rows), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(arguments_collection, txn, 25), OMENDB_OK);
    for (; seen < 21; seen++) {
        CHECK_EQ_INT(omendb_rows_next(rows, &id, OMENDB_F32, vector), OMENDB_OK);
        CHECK_EQ_INT(id, seen);
    }
    for (int type = -1; type <= OMENDB_B1 + 1; type += OMENDB_B1 + 2)
        CHECK_EQ_INT(omendb_rows_next(rows, &id, type, vector), OMENDB_NOTFOUND);
    CHECK(strstr(omendb_errmsg(), "id 25 was deleted by this transaction") != NULL);
    CHECK_EQ_INT(omendb_rows_next(rows, &id, 0, NULL), OMENDB_OK);
    CHECK_EQ_INT(id, 25);
    CHECK_EQ_INT(omendb_rows_next(rows, &id, OMENDB_F32, vector), OMENDB_DONE);
    omendb_rows_close(rows);
    CHECK_EQ_INT(omendb_scan(arguments_collection, NULL, 0, 3, &rows), OMENDB_OK);
    for (int type = -1; type <= OMENDB_B1 + 1; type += OMENDB_B1 + 2) {
        CHECK_EQ_INT(omendb_rows_next(rows, &id, type, vector), OMENDB_INVALID);
        CHECK(strstr(omendb_errmsg(), "vector_type is") != NULL);
    }
    omendb_rows_close(rows);
    omendb_txn_rollback(txn);
    CHECK(arguments_end());
}

/* A batch of no records is none, also in a transaction: there is nothing to commit. */
TEST(a_batch_of_nothing_is_nothing)
{
    omendb_txn *txn = NULL;
    CHECK(arguments_begin(NULL));
    const uint64_t commits = atomic_load(&arguments_db->visible_commit);
    CHECK_EQ_INT(omendb_txn_begin(arguments_db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (int own = 0; own < 2; own++) {
        omendb_txn *const in = own ? txn : NULL;
        CHECK_EQ_INT(omendb_put_batch(arguments_collection, in, 0, NULL, NULL, OMENDB_F32, NULL),
                     OMENDB_OK);
        CHECK_EQ_INT(omendb_delete_batch(arguments_collection, in, 0, NULL, NULL), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(atomic_load(&arguments_db->visible_commit), commits);
    CHECK(arguments_end());
}

static uint64_t arguments_time;

static uint64_t arguments_now(void *context)
{
    (void)context;
    return arguments_time;
}

/* What is told of ages is none, and never wraps. */
static void arguments_check_ages(uint64_t began, uint64_t looks)
{
    struct crash_fs *disk = crash_fs_create(0);
    omendb_vfs vfs = disk->vfs;
    omendb_txn *txn = NULL;
    omendb_stats stats = OMENDB_STATS_INIT;
    vfs.now_us = arguments_now;
    arguments_time = began;
    CHECK(arguments_begin(&vfs));
    CHECK_EQ_INT(omendb_checkpoint(arguments_db), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(arguments_db, OMENDB_READ_ONLY, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(arguments_collection, NULL, 7), OMENDB_OK);
    arguments_time = looks;
    CHECK_EQ_INT(omendb_get_stats(arguments_db, &stats), OMENDB_OK);
    CHECK(stats.open_transactions == 1 && stats.oldest_age_us == 0);
    CHECK_EQ_INT(omendb_purge(arguments_db, NULL), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "which began 0 ms ago") != NULL);
    omendb_txn_rollback(txn);
    CHECK_EQ_INT(omendb_purge(arguments_db, NULL), OMENDB_OK);
    CHECK(arguments_end());
    crash_fs_destroy(disk);
}

TEST(a_clock_that_stands_still_or_goes_back_makes_ages_of_nothing)
{
    arguments_check_ages(1000, 1000);
    arguments_check_ages(10000000, 1000);
}

/* ------------------------------------------------------------------------------------------------
 * purge of what is open, and of much */

TEST(a_dropped_collection_whose_handle_is_open_is_waited_for_and_told)
{
    struct crash_fs *disk = crash_fs_create(0);
    CHECK(arguments_begin(&disk->vfs));
    CHECK_EQ_INT(omendb_checkpoint(arguments_db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_drop(arguments_db, "a"), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(arguments_db, NULL), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "close handles of collections that were dropped") != NULL);
    CHECK(strstr(omendb_errmsg(), "cursor") == NULL);
    omendb_collection_close(arguments_collection);
    arguments_collection = NULL;
    CHECK_EQ_INT(omendb_purge(arguments_db, NULL), OMENDB_OK);
    CHECK(arguments_end());
    crash_fs_destroy(disk);
}

TEST(a_purge_reaches_more_collections_than_are_merged_at_once)
{
    enum { COLLECTIONS = 70 };
    struct crash_fs *disk = crash_fs_create(0);
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    schema.dim = ARGUMENTS_DIM;
    CHECK(arguments_begin(&disk->vfs));
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < COLLECTIONS; i++) {
            char name[16];
            omendb_collection *collection = NULL;
            snprintf(name, sizeof name, "c%d", i);
            CHECK_EQ_INT(omendb_collection_open_or_create(arguments_db, name, &schema, &collection),
                         OMENDB_OK);
            for (uint64_t id = 0; id < 3 && round == 0; id++)
                CHECK_EQ_INT(support_put(collection, NULL, id, id, ARGUMENTS_DIM), OMENDB_OK);
            if (round == 1)
                CHECK_EQ_INT(omendb_delete(collection, NULL, 1), OMENDB_OK);
            omendb_collection_close(collection);
        }
        CHECK_EQ_INT(omendb_checkpoint(arguments_db), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_purge(arguments_db, NULL), OMENDB_OK);
    for (int i = 0; i < COLLECTIONS; i++) {
        char name[16];
        omendb_collection *collection = NULL;
        snprintf(name, sizeof name, "c%d", i);
        CHECK_EQ_INT(omendb_collection_open(arguments_db, name, NULL, &collection), OMENDB_OK);
        CHECK_EQ_INT(omendb_collection_get_stats(collection, &stats), OMENDB_OK);
        omendb_collection_close(collection);
        CHECK_EQ_INT(stats.records, 2);
        CHECK_EQ_INT(stats.rows, 2); /* what was deleted is stored no more */
    }
    CHECK_EQ_INT(support_check(arguments_db), OMENDB_OK);
    CHECK(arguments_end());
    crash_fs_destroy(disk);
}

/* ------------------------------------------------------------------------------------------------
 * the system */

static void arguments_wake(int signal)
{
    (void)signal;
}

TEST(a_sleep_goes_on_after_a_signal)
{
    struct sigaction action = {.sa_handler = arguments_wake}, former;
    const struct itimerval soon = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
    CHECK_EQ_INT(sigaction(SIGALRM, &action, &former), 0);
    CHECK_EQ_INT(setitimer(ITIMER_REAL, &soon, NULL), 0);
    const omendb_vfs *vfs = omendb_default_vfs();
    const uint64_t begun = vfs->now_us(vfs->context);
    platform_sleep_us(40000);
    const uint64_t slept = vfs->now_us(vfs->context) - begun;
    CHECK_EQ_INT(setitimer(ITIMER_REAL, &never, NULL), 0);
    CHECK_EQ_INT(sigaction(SIGALRM, &former, NULL), 0);
    CHECK(slept >= 40000);
}

TEST_MAIN(initialising_nothing_is_nothing, names_are_of_whole_characters,
          a_name_that_does_not_fit_says_what_it_needs, a_vfs_without_a_function_is_refused,
          salvage_needs_two_paths_and_nothing_else,
          a_cursor_tells_what_its_transaction_deleted_since, a_batch_of_nothing_is_nothing,
          a_clock_that_stands_still_or_goes_back_makes_ages_of_nothing,
          a_dropped_collection_whose_handle_is_open_is_waited_for_and_told,
          a_purge_reaches_more_collections_than_are_merged_at_once, a_sleep_goes_on_after_a_signal)
