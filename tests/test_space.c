/* test_space.c: the space of what was deleted or replaced comes back without a call: live rows are
 * at least half of the files, however they were deleted, with background threads and without.
 *
 * White box, for small limits. What a live row takes is measured on the optimized database before
 * anything is deleted. */
#define SPACE_TEST_FLOOR        (UINT64_C(256) << 10)
#define SPACE_FLOOR             SPACE_TEST_FLOOR /* the library undefines it */
#define CHECKPOINT_OVERLAYS_MIN SPACE_TEST_FLOOR
#include "omendb.c"

#include "test.h"

#include "support.h"

#define SPACE_DIM     32
#define SPACE_ROWS    4000
#define SPACE_SLACK   (UINT64_C(128) << 10) /* some files more than one */
#define SPACE_WAIT_MS 30000

static char space_path[4096];

static omendb *space_open(const char *name, int fresh, int32_t threads)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db = NULL;
    options.threads = threads;
    options.sync = OMENDB_SYNC_NORMAL;
    if (fresh)
        snprintf(space_path, sizeof space_path, "%s", support_path(name));
    return omendb_open(space_path, &options, &db) == OMENDB_OK ? db : NULL;
}

static omendb_collection *space_collection(omendb *db, const char *name)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *collection = NULL;
    schema.dim = SPACE_DIM;
    schema.M = 8;
    schema.ef_construction = 40;
    omendb_collection_open_or_create(db, name, &schema, &collection);
    return collection;
}

static int space_fill(omendb_collection *collection, uint64_t first, uint64_t count, uint64_t salt)
{
    int code = OMENDB_OK;
    for (uint64_t id = first; id < first + count && code == OMENDB_OK; id++)
        code = support_put(collection, NULL, id, id + salt, SPACE_DIM);
    return code;
}

/* Bytes of the segments and overlays that lie in the directory. */
static uint64_t space_files(const char *prefix)
{
    struct dirent *entry;
    uint64_t bytes = 0;
    DIR *entries = opendir(space_path);
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        char name[8192];
        struct stat facts;
        snprintf(name, sizeof name, "%s/%s", space_path, entry->d_name);
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0 && stat(name, &facts) == 0)
            bytes += (uint64_t)facts.st_size;
    }
    if (entries != NULL)
        closedir(entries);
    return bytes;
}

static uint64_t space_all(void)
{
    return space_files("seg-") + space_files("ovl-");
}

static uint64_t space_written(omendb *db)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    return omendb_get_stats(db, &stats) == OMENDB_OK ? stats.written_bytes : 0;
}

/* Whether `live` of `rows` rows, which took `full` bytes, are at least half of the files, now or,
 * with threads, soon. */
static int space_holds(uint64_t full, uint64_t rows, uint64_t live, int32_t threads)
{
    const uint64_t allowed = full / rows * live * 2 + SPACE_SLACK;
    uint64_t files = space_all();
    for (int waited = 0; files > allowed && threads != 0 && waited < SPACE_WAIT_MS; waited += 10) {
        platform_sleep_us(10000);
        files = space_all();
    }
    if (files > allowed)
        fprintf(stderr, "    %llu bytes for %llu of %llu rows, which took %llu\n",
                (unsigned long long)files, (unsigned long long)live, (unsigned long long)rows,
                (unsigned long long)full);
    return files <= allowed;
}

static int space_delete(omendb_collection *collection, uint64_t first, uint64_t count,
                        uint64_t step)
{
    int code = OMENDB_OK;
    for (uint64_t id = first; id < first + count && code == OMENDB_OK; id += step)
        code = omendb_delete(collection, NULL, id);
    return code;
}

/* An optimized collection of SPACE_ROWS rows. */
static omendb *space_prepare(const char *name, int32_t threads, omendb_collection **collection,
                             uint64_t *full)
{
    omendb *db = space_open(name, 1, threads);
    if (db == NULL)
        return NULL;
    *collection = space_collection(db, "docs");
    if (space_fill(*collection, 0, SPACE_ROWS, 0) != OMENDB_OK ||
        omendb_optimize(db, NULL, NULL) != OMENDB_OK)
        return NULL;
    *full = space_all();
    return db;
}

static void space_finish(omendb *db, omendb_collection *collection, uint64_t records)
{
    uint64_t count = 0;
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    if (collection != NULL) {
        CHECK_EQ_INT(omendb_count(collection, NULL, &count), OMENDB_OK);
        CHECK_EQ_INT(count, records);
    }
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * rows */

static void space_check_deletes(int32_t threads)
{
    omendb_collection *collection;
    uint64_t full;
    omendb *db = space_prepare("deletes", threads, &collection, &full);
    CHECK(db != NULL && full > 2 * SPACE_TEST_FLOOR);
    const uint64_t before = space_written(db);
    for (uint64_t tenth = 1; tenth <= 9; tenth++) {
        CHECK_EQ_INT(space_delete(collection, tenth, SPACE_ROWS - tenth, 10), OMENDB_OK);
        CHECK(space_holds(full, 10, 10 - tenth, threads));
    }
    /* A quarter of ended rows at a time: 3/4 + 9/16 + ... of the files, and the log. */
    if (threads == 0)
        CHECK(space_written(db) - before < 4 * full);
    space_finish(db, collection, SPACE_ROWS / 10);
}

TEST(deletes_alone_give_space_back_where_writers_do_the_work)
{
    space_check_deletes(0);
}

TEST(deletes_alone_give_space_back_in_the_background)
{
    space_check_deletes(2);
}

TEST(deletes_in_a_transaction_give_space_back)
{
    omendb_collection *collection;
    omendb_txn *txn;
    uint64_t full;
    omendb *db = space_prepare("transaction", 0, &collection, &full);
    CHECK(db != NULL);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (uint64_t id = 0; id < SPACE_ROWS / 10 * 9; id++)
        CHECK_EQ_INT(omendb_delete(collection, txn, id), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK(space_holds(full, 10, 1, 0));
    space_finish(db, collection, SPACE_ROWS / 10);
}

static void space_check_replacing(int32_t threads)
{
    omendb_collection *collection;
    uint64_t full;
    omendb *db = space_prepare("replacing", threads, &collection, &full);
    CHECK(db != NULL);
    for (uint64_t round = 1; round <= 4; round++) {
        CHECK_EQ_INT(space_fill(collection, 0, SPACE_ROWS, round * 1000000), OMENDB_OK);
        CHECK(space_holds(full, 1, 1, threads));
    }
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    if (threads == 0)
        CHECK_EQ_INT(omendb_work(db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK(space_holds(full, 1, 1, threads));
    space_finish(db, collection, SPACE_ROWS);
}

TEST(replacing_alone_gives_space_back_where_writers_do_the_work)
{
    space_check_replacing(0);
}

TEST(replacing_alone_gives_space_back_in_the_background)
{
    space_check_replacing(2);
}

/* Under the quarter that makes a segment worth rewriting, in each of several. */
TEST(deletes_spread_over_segments_stay_under_half_of_the_whole)
{
    omendb_collection *collection;
    uint64_t full;
    omendb *db = space_prepare("spread", 0, &collection, &full);
    CHECK(db != NULL);
    CHECK_EQ_INT(space_fill(collection, 10000, 600, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK_EQ_INT(space_fill(collection, 20000, 100, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    for (uint64_t part = 0; part < 30; part++) {
        CHECK_EQ_INT(space_delete(collection, part, SPACE_ROWS - part, 40), OMENDB_OK);
        CHECK_EQ_INT(space_delete(collection, 10000 + part, 600 - part, 40), OMENDB_OK);
        CHECK(space_holds(full, SPACE_ROWS, (SPACE_ROWS + 600) / 40 * (39 - part) + 100, 0));
    }
    space_finish(db, collection, SPACE_ROWS / 4 + 250);
}

/* ------------------------------------------------------------------------------------------------
 * what pins, and what comes back when it goes */

static void space_check_snapshot(int32_t threads)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    omendb_collection *collection;
    omendb_txn *snapshot;
    uint64_t full, count;
    omendb *db = space_prepare("snapshot", threads, &collection, &full);
    CHECK(db != NULL);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    CHECK_EQ_INT(space_delete(collection, 0, SPACE_ROWS / 10 * 9, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_count(collection, snapshot, &count), OMENDB_OK);
    CHECK_EQ_INT(count, SPACE_ROWS);
    CHECK_EQ_INT(omendb_get_stats(db, &stats), OMENDB_OK);
    CHECK_EQ_INT(stats.pinned_rows, SPACE_ROWS / 10 * 9);
    CHECK(stats.pinned_bytes > full / 10 * 8 && stats.pinned_bytes < full);
    /* Without threads all that is to be done is done now, so that what follows is due to the end.
     */
    CHECK_EQ_INT(omendb_work(db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK(space_all() >= full);
    omendb_txn_rollback(snapshot);
    if (threads == 0)
        CHECK_EQ_INT(omendb_work(db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK(space_holds(full, 10, 1, threads));
    CHECK_EQ_INT(omendb_get_stats(db, &stats), OMENDB_OK);
    CHECK(stats.pinned_rows == 0 && stats.pinned_bytes == 0 && stats.oldest_commit == 0);
    space_finish(db, collection, SPACE_ROWS / 10);
}

TEST(space_comes_back_when_a_long_open_snapshot_ends)
{
    space_check_snapshot(0);
}

TEST(space_comes_back_in_the_background_when_a_long_open_snapshot_ends)
{
    space_check_snapshot(2);
}

TEST(space_comes_back_after_opening_with_nothing_else_done)
{
    omendb_collection *collection;
    omendb_txn *snapshot;
    uint64_t full;
    omendb *db = space_prepare("reopened", 0, &collection, &full);
    CHECK(db != NULL);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    CHECK_EQ_INT(space_delete(collection, 0, SPACE_ROWS / 10 * 9, 1), OMENDB_OK);
    omendb_txn_rollback(snapshot);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK(space_all() >= full);
    db = space_open("reopened", 0, 2);
    CHECK(db != NULL);
    CHECK(space_holds(full, 10, 1, 2));
    space_finish(db, NULL, 0);
}

/* A database with a reader, which holds what nine tenths of its rows were in. */
static omendb *space_prepare_read(const char *name, omendb_collection **collection, uint64_t *full,
                                  omendb **reader)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db = space_prepare(name, 2, collection, full);
    options.read_only = 1;
    if (db == NULL || omendb_open(space_path, &options, reader) != OMENDB_OK ||
        space_delete(*collection, 0, SPACE_ROWS / 10 * 9, 1) != OMENDB_OK ||
        omendb_optimize(db, NULL, NULL) != OMENDB_OK)
        return NULL;
    return db;
}

TEST(space_comes_back_when_a_reader_of_a_manifest_goes)
{
    omendb_collection *collection;
    omendb *reader;
    uint64_t full;
    omendb *db = space_prepare_read("reader", &collection, &full, &reader);
    CHECK(db != NULL);
    CHECK(space_all() >= full);
    CHECK_EQ_INT(omendb_close(reader), OMENDB_OK);
    CHECK(space_holds(full, 10, 1, 2));
    space_finish(db, collection, SPACE_ROWS / 10);
}

/* What a writer left to a reader and did not live to collect. */
TEST(space_comes_back_when_a_reader_goes_that_the_writer_before_knew)
{
    omendb_collection *collection;
    omendb *reader;
    uint64_t full;
    omendb *db = space_prepare_read("inherited", &collection, &full, &reader);
    CHECK(db != NULL);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    db = space_open("inherited", 0, 2);
    CHECK(db != NULL);
    CHECK(atomic_load(&db->retained_count) != 0);
    CHECK_EQ_INT(omendb_close(reader), OMENDB_OK);
    CHECK(space_holds(full, 10, 1, 2));
    space_finish(db, NULL, 0);
}

TEST(a_look_for_dead_bytes_that_lacks_memory_is_repeated)
{
    omendb_collection *collection;
    uint64_t full;
    omendb *db = space_prepare("look", 0, &collection, &full);
    CHECK(db != NULL);
    struct work_state *work = db->work;
    atomic_store(&work->look_due, 1);
    db->memory.limit = 1;
    platform_mutex_lock(&work->mutex);
    CHECK_EQ_INT(work_look_alone(work), OMENDB_NOMEM);
    CHECK(work_wants_look(work));
    db->memory.limit = 0;
    CHECK_EQ_INT(work_look_alone(work), OMENDB_OK);
    CHECK(!work_wants_look(work));
    platform_mutex_unlock(&work->mutex);
    space_finish(db, collection, SPACE_ROWS);
}

/* ------------------------------------------------------------------------------------------------
 * collections */

TEST(a_dropped_collection_gives_its_files_back)
{
    omendb_collection *collection, *small;
    uint64_t full;
    omendb *db = space_prepare("dropped", 0, &collection, &full);
    CHECK(db != NULL);
    small = space_collection(db, "small");
    CHECK_EQ_INT(space_fill(small, 0, 100, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_collection_drop(db, "docs"), OMENDB_OK);
    CHECK(space_holds(full, SPACE_ROWS, 100, 0));
    space_finish(db, small, 100);
}

#define SPACE_MANY 300

static int space_fill_many(omendb *db)
{
    int code = OMENDB_OK;
    for (uint64_t i = 0; i < SPACE_MANY && code == OMENDB_OK; i++) {
        char name[16];
        snprintf(name, sizeof name, "c%d", (int)i);
        omendb_collection *collection = space_collection(db, name);
        code = space_fill(collection, 0, 20, i * 1000);
        omendb_collection_close(collection);
    }
    return code == OMENDB_OK ? omendb_checkpoint(db) : code;
}

TEST(packs_of_which_most_collections_were_dropped_give_space_back)
{
    omendb *db = space_open("packs", 1, 0);
    CHECK(db != NULL);
    CHECK_EQ_INT(space_fill_many(db), OMENDB_OK);
    uint64_t full = space_all();
    CHECK(full > 2 * SPACE_TEST_FLOOR);
    for (int i = 0; i < SPACE_MANY / 10 * 9; i++) {
        char name[16];
        snprintf(name, sizeof name, "c%d", i);
        CHECK_EQ_INT(omendb_collection_drop(db, name), OMENDB_OK);
    }
    CHECK(space_holds(full, 10, 1, 0));
    space_finish(db, NULL, 0);
}

/* Each collection in turn is sealed into a file of its own, far smaller than any file is; linked,
 * so that it is merged for no other reason. */
TEST(many_files_of_small_collections_are_gathered)
{
    omendb *db = space_open("gathered", 1, 0);
    CHECK(db != NULL);
    CHECK_EQ_INT(space_fill_many(db), OMENDB_OK);
    uint64_t full = space_all();
    for (int i = 0; i < 100; i++) {
        char name[16];
        snprintf(name, sizeof name, "d%d", i);
        omendb_collection *collection = space_collection(db, name);
        CHECK_EQ_INT(space_fill(collection, 0, 4, 7), OMENDB_OK);
        omendb_collection_close(collection);
        CHECK_EQ_INT(omendb_work(db, UINT64_MAX, NULL), OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_work(db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK(space_holds(full, SPACE_MANY, SPACE_MANY + 20, 0));
    space_finish(db, NULL, 0);
}

TEST(overlays_that_most_segments_have_left_do_not_pile_up)
{
    omendb *db = space_open("overlays", 1, 0);
    CHECK(db != NULL);
    CHECK_EQ_INT(space_fill_many(db), OMENDB_OK);
    uint64_t largest = 0;
    for (int i = 0; i < 60; i++) {
        char name[16];
        snprintf(name, sizeof name, "c%d", i);
        omendb_collection *collection = space_collection(db, name);
        CHECK_EQ_INT(omendb_delete(collection, NULL, 3), OMENDB_OK);
        omendb_collection_close(collection);
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
        uint64_t overlays = space_files("ovl-");
        largest = overlays > largest ? overlays : largest;
    }
    CHECK(largest <= SPACE_TEST_FLOOR + (UINT64_C(128) << 10));
    space_finish(db, NULL, 0);
}

TEST_MAIN(deletes_alone_give_space_back_where_writers_do_the_work,
          deletes_alone_give_space_back_in_the_background, deletes_in_a_transaction_give_space_back,
          replacing_alone_gives_space_back_where_writers_do_the_work,
          replacing_alone_gives_space_back_in_the_background,
          deletes_spread_over_segments_stay_under_half_of_the_whole,
          space_comes_back_when_a_long_open_snapshot_ends,
          space_comes_back_in_the_background_when_a_long_open_snapshot_ends,
          space_comes_back_after_opening_with_nothing_else_done,
          space_comes_back_when_a_reader_of_a_manifest_goes,
          space_comes_back_when_a_reader_goes_that_the_writer_before_knew,
          a_look_for_dead_bytes_that_lacks_memory_is_repeated,
          a_dropped_collection_gives_its_files_back,
          packs_of_which_most_collections_were_dropped_give_space_back,
          many_files_of_small_collections_are_gathered,
          overlays_that_most_segments_have_left_do_not_pile_up)
