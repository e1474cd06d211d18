/* test_tenants.c: many small collections in one database: that they are cheap while nobody uses
 * them, that none shows what is another's, and that resting between uses changes nothing. */
#include "internals.h"
#include "support.h"
#include "test.h"

#include <sys/wait.h>

#define DIM     8
#define RECORDS 5

static omendb *tenants_db;

static const char *tenants_name(uint32_t tenant)
{
    static char name[32];
    snprintf(name, sizeof name, "tenant-%06u", tenant);
    return name;
}

static int tenants_open(const char *path, int32_t threads)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = threads;
    options.sync = OMENDB_SYNC_OFF;
    return omendb_open(path, &options, &tenants_db);
}

static int tenants_create(uint32_t count)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    char(*names)[32] = calloc(count, sizeof *names);
    const char **pointers = calloc(count, sizeof *pointers);
    schema.dim = DIM;
    for (uint32_t i = 0; i < count; i++) {
        snprintf(names[i], sizeof names[i], "%s", tenants_name(i));
        pointers[i] = names[i];
    }
    const int code = omendb_collection_create_batch(tenants_db, count, pointers, &schema);
    free(pointers);
    free(names);
    return code;
}

static omendb_collection *tenants_handle(uint32_t tenant)
{
    omendb_collection *collection = NULL;
    omendb_collection_open(tenants_db, tenants_name(tenant), NULL, &collection);
    return collection;
}

/* No two tenants have a vector in common. */
static void tenants_vector(uint32_t tenant, uint64_t id, float vector[DIM])
{
    for (int i = 0; i < DIM; i++)
        vector[i] = i == 0 ? (float)tenant : (float)(id % 64) + (float)i;
}

static int tenants_put(omendb_collection *collection, omendb_txn *txn, uint32_t tenant, uint64_t id)
{
    omendb_record record = OMENDB_RECORD_INIT;
    float vector[DIM];
    tenants_vector(tenant, id, vector);
    record.id = id;
    record.vector = vector;
    return omendb_put(collection, txn, &record, NULL);
}

static int tenants_fill(uint32_t first, uint32_t count, uint32_t records)
{
    int code = OMENDB_OK;
    for (uint32_t i = first; i < first + count && code == OMENDB_OK; i++) {
        omendb_collection *collection = tenants_handle(i);
        for (uint32_t id = 0; id < records && code == OMENDB_OK; id++)
            code = tenants_put(collection, NULL, i, id);
        omendb_collection_close(collection);
    }
    return code;
}

static uint64_t tenants_count(uint32_t tenant)
{
    uint64_t count = UINT64_MAX;
    omendb_collection *collection = tenants_handle(tenant);
    omendb_count(collection, NULL, &count);
    omendb_collection_close(collection);
    return count;
}

/* Whether a search in the tenant finds so many records, all of them its own. */
static int tenants_finds_its_own(uint32_t tenant, size_t records)
{
    omendb_collection *collection = tenants_handle(tenant);
    omendb_query query = OMENDB_QUERY_INIT;
    uint64_t ids[64];
    float distances[64], vector[DIM], stored[DIM];
    size_t count = 0;
    tenants_vector(tenant, 0, vector);
    query.vector = vector;
    query.k = 64;
    int good = omendb_search(collection, NULL, &query, ids, distances, &count) == OMENDB_OK &&
               count == records;
    for (size_t i = 0; i < count && good; i++) {
        tenants_vector(tenant, ids[i], vector);
        good = omendb_get(collection, NULL, ids[i], OMENDB_F32, stored) == OMENDB_OK &&
               memcmp(stored, vector, sizeof vector) == 0;
    }
    omendb_collection_close(collection);
    return good;
}

static int tenants_rests(uint32_t tenant)
{
    int found;
    platform_mutex_lock(&tenants_db->commit_mutex);
    const size_t at = catalog_find(&tenants_db->catalog, tenants_name(tenant), &found);
    const int rests = found && tenants_db->catalog.items[at]->rest != NULL;
    platform_mutex_unlock(&tenants_db->commit_mutex);
    return rests;
}

static omendb_stats tenants_stats(void)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    omendb_get_stats(tenants_db, &stats);
    return stats;
}

static int tenants_finish_work(void)
{
    return omendb_work(tenants_db, UINT64_MAX, NULL);
}

static size_t tenants_entries(const char *path)
{
    DIR *folder = opendir(path);
    size_t count = 0;
    while (folder != NULL && readdir(folder) != NULL)
        count++;
    if (folder != NULL)
        closedir(folder);
    return count;
}

/* A database of `count` tenants with RECORDS each, in segments; open, without threads. */
static const char *tenants_made(const char *name, uint32_t count)
{
    const char *path = support_path(name);
    if (tenants_open(path, 0) != OMENDB_OK || tenants_create(count) != OMENDB_OK ||
        tenants_fill(0, count, RECORDS) != OMENDB_OK || omendb_close(tenants_db) != OMENDB_OK ||
        tenants_open(path, 0) != OMENDB_OK || tenants_finish_work() != OMENDB_OK)
        return "";
    return path;
}

/* ------------------------------------------------------------------------------------------------
 * many at once */

TEST(ten_thousand_collections_are_created_in_one_commit_and_are_there_after_reopening)
{
    const char *path = support_path("created.omen");
    CHECK_EQ_INT(tenants_open(path, 0), OMENDB_OK);
    const uint64_t commits = tenants_stats().commits;
    CHECK_EQ_INT(tenants_create(10000), OMENDB_OK);
    CHECK_EQ_INT(tenants_stats().commits, commits + 1);
    CHECK_EQ_INT(tenants_fill(4711, 1, RECORDS), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
    CHECK_EQ_INT(tenants_open(path, 0), OMENDB_OK);
    CHECK_EQ_INT(tenants_stats().collections, 10000);
    CHECK(tenants_finds_its_own(4711, RECORDS));
    CHECK_EQ_INT(tenants_count(4712), 0);
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

TEST(of_a_batch_with_a_name_that_is_taken_none_is_created)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    const char *names[] = {"a", "b", "tenant-000001", "c"}, *twice[] = {"a", "b", "a"},
               *illegal[] = {"a", ""};
    schema.dim = DIM;
    CHECK_EQ_INT(tenants_open(":memory:", 0), OMENDB_OK);
    CHECK_EQ_INT(tenants_create(2), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create_batch(tenants_db, 4, names, &schema), OMENDB_EXISTS);
    CHECK(strstr(omendb_errmsg(), "tenant-000001") != NULL);
    CHECK_EQ_INT(omendb_collection_create_batch(tenants_db, 3, twice, &schema), OMENDB_EXISTS);
    CHECK_EQ_INT(omendb_collection_create_batch(tenants_db, 2, illegal, &schema), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_collection_create_batch(tenants_db, 2, NULL, &schema), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_collection_create_batch(tenants_db, 2, names, NULL), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_collection_create_batch(tenants_db, 100001, names, &schema), OMENDB_TOOBIG);
    CHECK_EQ_INT(omendb_collection_create_batch(tenants_db, 0, names, &schema), OMENDB_OK);
    schema.dim = 0;
    CHECK_EQ_INT(omendb_collection_create_batch(tenants_db, 2, names, &schema), OMENDB_INVALID);
    CHECK_EQ_INT(tenants_stats().collections, 2);
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

/* A child dies with the collections and their records in the log only. */
TEST(a_batch_of_collections_is_replayed_from_the_log)
{
    const char *path = support_path("logged.omen");
    const pid_t child = fork();
    if (child == 0) {
        int bad = tenants_open(path, 0) != OMENDB_OK || tenants_create(300) != OMENDB_OK ||
                  tenants_fill(0, 300, 2) != OMENDB_OK;
        _exit(bad);
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_EQ_INT(tenants_open(path, 0), OMENDB_OK);
    CHECK_EQ_INT(tenants_stats().collections, 300);
    for (uint32_t i = 0; i < 300; i++)
        CHECK(tenants_finds_its_own(i, 2));
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * idle ones */

TEST(an_idle_collection_takes_less_than_a_kilobyte_and_neither_file_nor_thread)
{
    const uint32_t count = 3000;
    CHECK_EQ_INT(tenants_open(":memory:", 0), OMENDB_OK);
    const uint64_t nothing = tenants_stats().memory_bytes;
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
    const size_t files = tenants_entries("/proc/self/fd");
    CHECK(tenants_made("idle.omen", count)[0] != '\0');
    CHECK(tenants_entries("/proc/self/fd") <= files + 4);
    CHECK((tenants_stats().memory_bytes - nothing) / count < 1000);
    for (uint32_t i = 0; i < count; i++)
        CHECK(tenants_finds_its_own(i, RECORDS));
    CHECK((tenants_stats().memory_bytes - nothing) / count < 1000);
    CHECK(tenants_entries("/proc/self/fd") <= files + 4);
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

TEST(a_collection_rests_while_no_handle_is_open)
{
    CHECK(tenants_made("handles.omen", 3)[0] != '\0');
    CHECK(tenants_rests(0) && tenants_rests(1) && tenants_rests(2));
    omendb_collection *one = tenants_handle(1), *same = tenants_handle(1);
    CHECK(!tenants_rests(1));
    omendb_collection_close(one);
    CHECK(!tenants_rests(1));
    omendb_collection_close(same);
    CHECK(tenants_rests(1));
    CHECK_EQ_INT(tenants_stats().records, 3 * RECORDS);
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

TEST(what_was_written_to_a_collection_that_rested_is_there_after_the_next_checkpoints)
{
    const char *path = tenants_made("written.omen", 50);
    CHECK(path[0] != '\0');
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t i = round; i < 50; i += 7) {
            omendb_collection *collection = tenants_handle(i);
            CHECK_EQ_INT(tenants_put(collection, NULL, i, 10 + round), OMENDB_OK);
            omendb_collection_close(collection);
        }
        CHECK_EQ_INT(omendb_checkpoint(tenants_db), OMENDB_OK);
    }
    CHECK_EQ_INT(tenants_finish_work(), OMENDB_OK);
    for (int opened = 0; opened < 2; opened++) {
        for (uint32_t i = 0; i < 50; i++) {
            const size_t more = i % 7 < 3;
            CHECK(tenants_rests(i));
            CHECK(tenants_finds_its_own(i, RECORDS + more));
        }
        CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
        CHECK_EQ_INT(tenants_open(path, 0), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

static int tenants_delete(uint32_t tenant, uint64_t id)
{
    omendb_collection *collection = tenants_handle(tenant);
    const int code = omendb_delete(collection, NULL, id);
    omendb_collection_close(collection);
    return code;
}

TEST(deleted_records_stay_deleted_while_their_collection_rests)
{
    const char *path = tenants_made("deleted.omen", 20);
    CHECK(path[0] != '\0');
    for (uint32_t i = 0; i < 20; i++)
        CHECK_EQ_INT(tenants_delete(i, i % RECORDS), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(tenants_db), OMENDB_OK);
    for (int opened = 0; opened < 2; opened++) {
        CHECK(tenants_rests(7));
        CHECK_EQ_INT(tenants_stats().records, 20 * (RECORDS - 1));
        for (uint32_t i = 0; i < 20; i++) {
            CHECK_EQ_INT(tenants_delete(i, i % RECORDS), OMENDB_NOTFOUND);
            CHECK(tenants_finds_its_own(i, RECORDS - 1));
        }
        CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
        CHECK_EQ_INT(tenants_open(path, 0), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

/* The delete is in an overlay when the handle is closed, but the snapshot is older. */
TEST(a_collection_does_not_rest_while_a_snapshot_may_read_what_was_deleted)
{
    omendb_txn *snapshot;
    uint64_t count;
    CHECK(tenants_made("snapshot.omen", 2)[0] != '\0');
    CHECK_EQ_INT(omendb_txn_begin(tenants_db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    CHECK_EQ_INT(tenants_delete(0, 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(tenants_db), OMENDB_OK);
    CHECK(!tenants_rests(0));
    omendb_collection *collection = tenants_handle(0);
    CHECK_EQ_INT(omendb_count(collection, snapshot, &count), OMENDB_OK);
    CHECK_EQ_INT(count, RECORDS);
    omendb_collection_close(collection);
    omendb_txn_rollback(snapshot);
    CHECK_EQ_INT(tenants_count(0), RECORDS - 1);
    CHECK(tenants_rests(0));
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

/* The snapshot is younger than the delete and older than the checkpoint that wrote it down. */
TEST(a_snapshot_from_between_a_delete_and_its_checkpoint_sees_the_delete_after_a_rest)
{
    omendb_txn *snapshot;
    uint64_t count;
    CHECK(tenants_made("between.omen", 2)[0] != '\0');
    CHECK_EQ_INT(tenants_delete(0, 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(tenants_db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    CHECK_EQ_INT(tenants_fill(1, 1, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(tenants_db), OMENDB_OK);
    CHECK(tenants_rests(0));
    omendb_collection *collection = tenants_handle(0);
    CHECK_EQ_INT(omendb_count(collection, snapshot, &count), OMENDB_OK);
    CHECK_EQ_INT(count, RECORDS - 1);
    omendb_collection_close(collection);
    omendb_txn_rollback(snapshot);
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * whole-database calls */

TEST(checking_optimizing_purging_and_backups_see_collections_that_rest)
{
    char copy[4096];
    uint64_t problems = 1;
    CHECK(tenants_made("whole.omen", 40)[0] != '\0');
    snprintf(copy, sizeof copy, "%s", support_path("whole-copy.omen"));
    for (uint32_t i = 0; i < 40; i += 4)
        CHECK_EQ_INT(tenants_delete(i, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(tenants_db), OMENDB_OK);
    CHECK(tenants_rests(3));
    CHECK_EQ_INT(omendb_check(tenants_db, NULL, NULL, &problems), OMENDB_OK);
    CHECK_EQ_INT(problems, 0);
    CHECK_EQ_INT(omendb_backup(tenants_db, copy), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(tenants_db, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(tenants_db, NULL, NULL), OMENDB_OK);
    for (int opened = 0; opened < 2; opened++) {
        for (uint32_t i = 0; i < 40; i++)
            CHECK(tenants_finds_its_own(i, i % 4 == 0 ? RECORDS - 1 : RECORDS));
        CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
        CHECK_EQ_INT(tenants_open(copy, 0), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

TEST(a_commit_that_was_prepared_before_its_collection_rested_replaces_what_is_there)
{
    const char *path = tenants_made("prepared.omen", 3);
    omendb_txn *txn;
    CHECK(path[0] != '\0');
    omendb_collection *collection = tenants_handle(1);
    CHECK_EQ_INT(omendb_txn_begin(tenants_db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(tenants_put(collection, txn, 1, 2), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "later"), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
    CHECK_EQ_INT(tenants_open(path, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_commit_prepared(tenants_db, "later"), OMENDB_OK);
    CHECK(tenants_finds_its_own(1, RECORDS));
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

TEST(a_reader_follows_collections_that_rest)
{
    const char *path = tenants_made("followed.omen", 10);
    omendb *reader;
    omendb_collection *collection;
    omendb_options options = OMENDB_OPTIONS_INIT;
    uint64_t count;
    CHECK(path[0] != '\0');
    options.read_only = 1;
    CHECK_EQ_INT(omendb_open(path, &options, &reader), OMENDB_OK);
    for (uint64_t round = 0; round < 3; round++) {
        omendb_collection *own = tenants_handle(4);
        CHECK_EQ_INT(tenants_put(own, NULL, 4, 10 + round), OMENDB_OK);
        omendb_collection_close(own);
        if (round == 1) {
            CHECK_EQ_INT(omendb_checkpoint(tenants_db), OMENDB_OK);
            CHECK_EQ_INT(omendb_collection_drop(tenants_db, tenants_name(5)), OMENDB_OK);
        }
        CHECK_EQ_INT(omendb_refresh(reader), OMENDB_OK);
        CHECK_EQ_INT(omendb_collection_open(reader, tenants_name(4), NULL, &collection), OMENDB_OK);
        CHECK_EQ_INT(omendb_count(collection, NULL, &count), OMENDB_OK);
        CHECK_EQ_INT(count, RECORDS + round + 1);
        omendb_collection_close(collection);
    }
    CHECK_EQ_INT(omendb_collection_open(reader, tenants_name(5), NULL, &collection),
                 OMENDB_NOTFOUND);
    CHECK_EQ_INT(omendb_close(reader), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * dropping */

static uint64_t tenants_space(const char *path)
{
    uint64_t bytes = 0;
    DIR *folder = opendir(path);
    struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        char file[4096];
        struct stat status;
        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        if (strncmp(entry->d_name, "seg-", 4) == 0 && stat(file, &status) == 0)
            bytes += (uint64_t)status.st_size;
    }
    if (folder != NULL)
        closedir(folder);
    return bytes;
}

TEST(dropping_all_collections_gives_their_space_back)
{
    const char *path = tenants_made("dropped.omen", 1000);
    CHECK(path[0] != '\0');
    CHECK(tenants_space(path) > 0);
    for (uint32_t i = 0; i < 1000; i++)
        CHECK_EQ_INT(omendb_collection_drop(tenants_db, tenants_name(i)), OMENDB_OK);
    CHECK_EQ_INT(tenants_stats().collections, 0);
    CHECK_EQ_INT(omendb_checkpoint(tenants_db), OMENDB_OK);
    CHECK_EQ_INT(tenants_space(path), 0);
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

/* Looks for dead bytes and merges are under way all the time. */
TEST(collections_are_dropped_while_the_background_queues_them)
{
    const char *path = support_path("queued.omen");
    const uint32_t count = (uint32_t)support_scaled(3000, 300);
    CHECK_EQ_INT(tenants_open(path, 2), OMENDB_OK);
    for (int round = 0; round < 2; round++) {
        CHECK_EQ_INT(tenants_create(count), OMENDB_OK);
        CHECK_EQ_INT(tenants_fill(0, count, 4), OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(tenants_db), OMENDB_OK);
        for (uint32_t i = 0; i < count; i++)
            CHECK_EQ_INT(tenants_delete(i, 1), OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(tenants_db), OMENDB_OK);
        for (uint32_t i = 0; i < count; i++)
            CHECK_EQ_INT(omendb_collection_drop(tenants_db, tenants_name(i)), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_close(tenants_db), OMENDB_OK);
}

TEST_MAIN(ten_thousand_collections_are_created_in_one_commit_and_are_there_after_reopening,
          of_a_batch_with_a_name_that_is_taken_none_is_created,
          a_batch_of_collections_is_replayed_from_the_log,
          an_idle_collection_takes_less_than_a_kilobyte_and_neither_file_nor_thread,
          a_collection_rests_while_no_handle_is_open,
          what_was_written_to_a_collection_that_rested_is_there_after_the_next_checkpoints,
          deleted_records_stay_deleted_while_their_collection_rests,
          a_collection_does_not_rest_while_a_snapshot_may_read_what_was_deleted,
          a_snapshot_from_between_a_delete_and_its_checkpoint_sees_the_delete_after_a_rest,
          checking_optimizing_purging_and_backups_see_collections_that_rest,
          a_commit_that_was_prepared_before_its_collection_rested_replaces_what_is_there,
          a_reader_follows_collections_that_rest, dropping_all_collections_gives_their_space_back,
          collections_are_dropped_while_the_background_queues_them)
