/* test_purge.c: after omendb_purge no file holds a byte of what was deleted; what may still read it
 * is named; a crash on the way leaves a whole database.
 *
 * White box, to know the codes of a row. */
#include "internals.h"

#include "crash_vfs.h"
#include "test.h"

#include <sys/wait.h>

#define PURGE_DIM  32
#define PURGE_ROWS 600

static char purge_path[4096];

static omendb *purge_open(const char *name, int fresh)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db = NULL;
    options.threads = 0;
    options.sync = OMENDB_SYNC_NORMAL;
    if (fresh)
        snprintf(purge_path, sizeof purge_path, "%s", support_path(name));
    return omendb_open(purge_path, &options, &db) == OMENDB_OK ? db : NULL;
}

static omendb_collection *purge_collection(omendb *db, const char *name, uint32_t scalar)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *collection = NULL;
    schema.dim = PURGE_DIM;
    schema.scalar = scalar;
    omendb_collection_open_or_create(db, name, &schema, &collection);
    return collection;
}

/* Rows [first, first + count) with the vectors that their ids determine. */
static int purge_fill(omendb_collection *collection, uint64_t first, uint64_t count)
{
    int code = OMENDB_OK;
    for (uint64_t id = first; id < first + count && code == OMENDB_OK; id++)
        code = support_put(collection, NULL, id, id, PURGE_DIM);
    return code;
}

/* The bytes that the vector of a value is stored as. */
static size_t purge_bytes(uint64_t value, uint32_t scalar, uint8_t *bytes)
{
    float vector[PURGE_DIM];
    support_vector(value, PURGE_DIM, vector);
    if (scalar == OMENDB_F32) {
        memcpy(bytes, vector, sizeof vector);
        return sizeof vector;
    }
    for (size_t i = 0; i < PURGE_DIM; i++)
        bytes[i] = (uint8_t)(int8_t)vector[i];
    return PURGE_DIM;
}

/* Looks for a byte that is not 0, as most bytes of files are. */
static int purge_has(const uint8_t *data, size_t size, const uint8_t *bytes, size_t length)
{
    size_t key = 0;
    while (key + 1 < length && bytes[key] == 0)
        key++;
    for (size_t at = 0; at + length <= size; at++) {
        const uint8_t *found = memchr(data + at + key, bytes[key], size - length - at + 1);
        if (found == NULL)
            return 0;
        at = (size_t)(found - data) - key;
        if (memcmp(data + at, bytes, length) == 0)
            return 1;
    }
    return 0;
}

/* Number of files of the database in which the bytes lie. */
static int purge_grep(const uint8_t *bytes, size_t length)
{
    struct dirent *entry;
    int found = 0;
    DIR *entries = opendir(purge_path);
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        char name[8192];
        struct stat facts;
        snprintf(name, sizeof name, "%s/%s", purge_path, entry->d_name);
        FILE *file = stat(name, &facts) == 0 && S_ISREG(facts.st_mode) ? fopen(name, "rb") : NULL;
        if (file == NULL)
            continue;
        uint8_t *data = malloc((size_t)facts.st_size + 1);
        size_t size = data == NULL ? 0 : fread(data, 1, (size_t)facts.st_size, file);
        found += size >= length && purge_has(data, size, bytes, length);
        free(data);
        fclose(file);
    }
    if (entries != NULL)
        closedir(entries);
    return found;
}

static int purge_grep_value(uint64_t value, uint32_t scalar)
{
    uint8_t bytes[PURGE_DIM * sizeof(float)];
    size_t length = purge_bytes(value, scalar, bytes);
    return purge_grep(bytes, length);
}

/* Copies the code of a record's row; 0: the segment has none. */
static size_t purge_code(omendb_collection *handle, uint64_t id, uint8_t *code)
{
    struct location location;
    struct version *version = version_acquire(handle->collection);
    size_t length = 0;
    if (version_locate(version, id, UINT64_MAX - 1, &location) == OMENDB_OK &&
        location.segment != NULL && location.segment->codes.step != 0.0f) {
        length = PURGE_DIM;
        memcpy(code, rows_at(&location.segment->graph.vectors, location.row), length);
    }
    version_release(version);
    return length;
}

static int purge_count(omendb_collection *collection, uint64_t expected)
{
    uint64_t count = 0;
    return omendb_count(collection, NULL, &count) == OMENDB_OK && count == expected;
}

/* ------------------------------------------------------------------------------------------------
 * bytes */

static void purge_check_segments(uint32_t scalar)
{
    uint8_t codes[2][PURGE_DIM];
    omendb *db = purge_open("purge", 1);
    omendb_collection *collection = purge_collection(db, "docs", scalar);
    CHECK(collection != NULL);
    CHECK_EQ_INT(purge_fill(collection, 0, PURGE_ROWS), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    size_t deleted = purge_code(collection, 7, codes[0]),
           replaced = purge_code(collection, 9, codes[1]);
    CHECK_EQ_INT(omendb_delete(collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(support_put(collection, NULL, 9, 100009, PURGE_DIM), OMENDB_OK);
    CHECK(purge_grep_value(7, scalar) > 0);
    CHECK(purge_grep_value(9, scalar) > 0);
    if (scalar == OMENDB_F32) {
        CHECK(deleted == PURGE_DIM && replaced == PURGE_DIM);
        CHECK(purge_grep(codes[0], deleted) > 0 && purge_grep(codes[1], replaced) > 0);
    }
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_OK);
    CHECK_EQ_INT(purge_grep_value(7, scalar), 0);
    CHECK_EQ_INT(purge_grep_value(9, scalar), 0);
    if (scalar == OMENDB_F32)
        CHECK(purge_grep(codes[0], deleted) == 0 && purge_grep(codes[1], replaced) == 0);
    CHECK(purge_grep_value(8, scalar) > 0 && purge_grep_value(100009, scalar) > 0);
    CHECK(purge_count(collection, PURGE_ROWS - 1));
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    db = purge_open("purge", 0);
    CHECK(db != NULL);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(purge_leaves_no_byte_of_deleted_and_replaced_vectors_and_codes)
{
    purge_check_segments(OMENDB_F32);
}

TEST(purge_leaves_no_byte_of_vectors_stored_as_i8)
{
    purge_check_segments(OMENDB_I8);
}

TEST(purge_reaches_what_was_deleted_before_it_left_the_log)
{
    omendb *db = purge_open("log", 1);
    omendb_collection *collection = purge_collection(db, "docs", OMENDB_F32);
    CHECK_EQ_INT(purge_fill(collection, 0, 50), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(collection, NULL, 3), OMENDB_OK);
    CHECK(purge_grep_value(3, OMENDB_F32) > 0);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    CHECK_EQ_INT(purge_grep_value(3, OMENDB_F32), 0);
    CHECK(purge_count(collection, 49));
    for (uint64_t id = 0; id < 50; id++)
        CHECK(id == 3 || omendb_delete(collection, NULL, id) == OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_OK);
    for (uint64_t id = 0; id < 50; id++)
        CHECK_EQ_INT(purge_grep_value(id, OMENDB_F32), 0);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(purge_moves_what_shares_a_file_and_reaches_dropped_collections)
{
    omendb *db = purge_open("packs", 1);
    omendb_collection *all[4];
    for (uint64_t i = 0; i < 4; i++) {
        char name[8] = {(char)('a' + i)};
        all[i] = purge_collection(db, name, OMENDB_F32);
        CHECK_EQ_INT(purge_fill(all[i], i * 1000, 40), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(all[1], NULL, 1005), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, "b"), OMENDB_OK);
    CHECK_EQ_INT(purge_grep_value(1005, OMENDB_F32), 0);
    CHECK(purge_grep_value(5, OMENDB_F32) > 0);
    omendb_collection_close(all[2]);
    CHECK_EQ_INT(omendb_collection_drop(db, "c"), OMENDB_OK);
    CHECK(purge_grep_value(2007, OMENDB_F32) > 0);
    CHECK_EQ_INT(omendb_purge(db, "c"), OMENDB_NOTFOUND);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    CHECK_EQ_INT(purge_grep_value(2007, OMENDB_F32), 0);
    CHECK(purge_count(all[0], 40) && purge_count(all[1], 39) && purge_count(all[3], 40));
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    omendb_collection_close(all[0]);
    omendb_collection_close(all[1]);
    omendb_collection_close(all[3]);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(purge_has_no_work_where_nothing_was_deleted)
{
    omendb_stats before = OMENDB_STATS_INIT, after = OMENDB_STATS_INIT;
    omendb *db = purge_open("idle", 1);
    omendb_collection *collection = purge_collection(db, "docs", OMENDB_F32);
    CHECK_EQ_INT(purge_fill(collection, 0, 50), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(db, &before), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(db, &after), OMENDB_OK);
    CHECK_EQ_INT(after.written_bytes, before.written_bytes);
    CHECK_EQ_INT(omendb_purge(db, "nobody"), OMENDB_NOTFOUND);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_open(":memory:", NULL, &db), OMENDB_OK);
    collection = purge_collection(db, "docs", OMENDB_F32);
    CHECK_EQ_INT(purge_fill(collection, 0, 50), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    CHECK(purge_count(collection, 49));
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* As many as a reader held until it went; a look at the directory takes 32. */
TEST(purge_overwrites_hundreds_of_files)
{
    enum { ROUNDS = 100 };
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *reader, *db = purge_open("many", 1);
    omendb_collection *collection = purge_collection(db, "docs", OMENDB_F32);
    options.read_only = 1;
    CHECK_EQ_INT(purge_fill(collection, 0, PURGE_ROWS), OMENDB_OK);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        CHECK_EQ_INT(support_put(collection, NULL, PURGE_ROWS + round, 100000 + round, PURGE_DIM),
                     OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_open(purge_path, &options, &reader), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "a reader of another process") != NULL);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    CHECK(purge_grep_value(7, OMENDB_F32) > 0);
    CHECK_EQ_INT(omendb_close(reader), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    CHECK_EQ_INT(purge_grep_value(7, OMENDB_F32), 0);
    CHECK(purge_count(collection, PURGE_ROWS + ROUNDS - 1));
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * pins */

/* A sealed collection of which row 7 was deleted after `pin` was told to pin. */
static omendb *purge_prepare(const char *name, omendb_collection **collection)
{
    omendb *db = purge_open(name, 1);
    *collection = purge_collection(db, "docs", OMENDB_F32);
    if (purge_fill(*collection, 0, PURGE_ROWS) != OMENDB_OK || omendb_checkpoint(db) != OMENDB_OK)
        return NULL;
    return db;
}

TEST(purge_names_the_transaction_that_pins_deleted_rows)
{
    omendb_collection *collection;
    omendb_txn *snapshot, *later;
    float vector[PURGE_DIM], expected[PURGE_DIM];
    omendb *db = purge_prepare("snapshot", &collection);
    CHECK(db != NULL);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &later), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_BUSY);
    char commit[64];
    snprintf(commit, sizeof commit, "at commit %d;", PURGE_ROWS + 1);
    CHECK(strstr(omendb_errmsg(), commit) != NULL);
    support_vector(7, PURGE_DIM, expected);
    CHECK_EQ_INT(omendb_get(collection, snapshot, 7, OMENDB_F32, vector), OMENDB_OK);
    CHECK(memcmp(vector, expected, sizeof vector) == 0);
    omendb_txn_rollback(snapshot);
    /* One that began after the delete pins nothing. */
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_OK);
    CHECK_EQ_INT(purge_grep_value(7, OMENDB_F32), 0);
    CHECK_EQ_INT(omendb_get(collection, later, 7, OMENDB_F32, vector), OMENDB_NOTFOUND);
    omendb_txn_rollback(later);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* Segments and memtables of two collections, none of which is touched before the refusal. */
TEST(purge_counts_all_pinned_rows_before_it_begins)
{
    omendb_collection *collection, *others;
    omendb_txn *snapshot;
    omendb_stats before = OMENDB_STATS_INIT, after = OMENDB_STATS_INIT;
    omendb *db = purge_prepare("count", &collection);
    CHECK(db != NULL);
    others = purge_collection(db, "others", OMENDB_F32);
    CHECK_EQ_INT(purge_fill(collection, PURGE_ROWS, 100), OMENDB_OK);
    CHECK_EQ_INT(purge_fill(others, 0, 100), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(collection, NULL, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    for (uint64_t id = PURGE_ROWS - 5; id < PURGE_ROWS + 5; id++)
        CHECK_EQ_INT(omendb_delete(collection, NULL, id), OMENDB_OK);
    for (uint64_t id = 0; id < 7; id++)
        CHECK_EQ_INT(omendb_delete(others, NULL, id), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(db, &before), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), " and 1 more: 17 deleted rows ") != NULL);
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "\"docs\": 10 deleted rows ") != NULL);
    CHECK_EQ_INT(omendb_get_stats(db, &after), OMENDB_OK);
    CHECK_EQ_INT(after.written_bytes, before.written_bytes);
    omendb_txn_rollback(snapshot);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    CHECK_EQ_INT(purge_grep_value(PURGE_ROWS, OMENDB_F32), 0);
    omendb_collection_close(collection);
    omendb_collection_close(others);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* Ends at the n-th look at the clock. */
static struct purge_ending {
    omendb_txn *txn;
    int looks;
} purge_ending;

static uint64_t purge_now(void *context)
{
    const omendb_vfs *real = omendb_default_vfs();
    if (purge_ending.txn != NULL && purge_ending.looks-- == 0) {
        omendb_txn_rollback(purge_ending.txn);
        purge_ending.txn = NULL;
    }
    return real->now_us(context);
}

TEST(purge_tells_of_a_transaction_that_ends_at_that_moment_what_it_was)
{
    static omendb_vfs vfs;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db = NULL;
    int busy = 0, ended = 1;
    vfs = *omendb_default_vfs();
    vfs.now_us = purge_now;
    options.vfs = &vfs;
    options.threads = 0;
    CHECK_EQ_INT(omendb_open(support_path("ending"), &options, &db), OMENDB_OK);
    omendb_collection *collection = purge_collection(db, "docs", OMENDB_F32);
    for (int looks = 0; ended && looks < 100; looks++) {
        CHECK_EQ_INT(purge_fill(collection, 0, 9), OMENDB_OK);
        omendb_txn *txn = NULL;
        CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &txn), OMENDB_OK);
        CHECK_EQ_INT(omendb_delete(collection, NULL, 7), OMENDB_OK);
        purge_ending = (struct purge_ending){txn, looks};
        const int status = omendb_purge(db, "docs");
        ended = purge_ending.txn == NULL;
        CHECK(status == OMENDB_BUSY || (ended && status == OMENDB_OK));
        busy += status == OMENDB_BUSY;
        if (status == OMENDB_BUSY)
            CHECK(strstr(omendb_errmsg(), "the oldest of 1 open transactions") != NULL);
        omendb_txn_rollback(purge_ending.txn);
        purge_ending.txn = NULL;
    }
    CHECK(busy > 1 && !ended);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* Queries of the sample differ more than graphs that a few gaps were relinked in. */
TEST(purge_of_a_few_rows_keeps_the_graph)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    omendb *db = purge_open("few", 1);
    CHECK(db != NULL);
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *collection;
    schema.dim = PURGE_DIM;
    schema.M = 4;
    schema.ef = 12;
    schema.ef_construction = 16;
    CHECK_EQ_INT(omendb_collection_create(db, "docs", &schema, &collection), OMENDB_OK);
    CHECK_EQ_INT(purge_fill(collection, 0, 8000), OMENDB_OK);
    CHECK_EQ_INT(omendb_work(db, UINT64_MAX, NULL), OMENDB_OK);
    for (uint64_t round = 0; round < 12; round++) {
        for (uint64_t i = 0; i < 16; i++)
            CHECK_EQ_INT(omendb_delete(collection, NULL, i * 400 + round), OMENDB_OK);
        CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_get_stats(db, &stats), OMENDB_OK);
    CHECK(stats.merges >= 12);
    CHECK_EQ_INT(stats.merges_rebuilt, 0);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(purge_does_not_overwrite_what_a_cursor_reads)
{
    omendb_collection *collection;
    omendb_rows *rows;
    float vector[PURGE_DIM], expected[PURGE_DIM];
    uint64_t id;
    omendb *db = purge_prepare("cursor", &collection);
    CHECK(db != NULL);
    CHECK_EQ_INT(omendb_scan(collection, NULL, 0, PURGE_ROWS, &rows), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "cursors, of which 1 are open") != NULL);
    for (uint64_t row = 0; row < PURGE_ROWS; row++) {
        CHECK_EQ_INT(omendb_rows_next(rows, &id, OMENDB_F32, vector), OMENDB_OK);
        support_vector(row, PURGE_DIM, expected);
        CHECK(id == row && memcmp(vector, expected, sizeof vector) == 0);
    }
    omendb_rows_close(rows);
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_OK);
    CHECK_EQ_INT(purge_grep_value(7, OMENDB_F32), 0);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* Names in descending order: what was written first comes last. */
static int purge_list_backwards(void *context, void *directory,
                                int (*each)(void *argument, const char *name), void *argument)
{
    (void)context;
    struct crash_directory *listed = directory;
    uint64_t before = UINT64_MAX;
    for (;;) {
        const char *found = NULL;
        uint64_t largest = 0;
        for (size_t i = 0; i < listed->count; i++) {
            enum storage_kind kind;
            uint64_t number;
            if (storage_parse_name(listed->entries[i].name, &kind, &number) && number < before &&
                number >= largest) {
                largest = number;
                found = listed->entries[i].name;
            }
        }
        if (found == NULL)
            return OMENDB_OK;
        char name[CRASH_NAME];
        snprintf(name, sizeof name, "%s", found);
        const int code = each(argument, name);
        if (code != OMENDB_OK)
            return code;
        before = largest;
    }
}

/* A file that another handle holds is not what this one's cursor reads. */
TEST(purge_names_the_file_that_is_in_use_beside_others_that_are_held)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    struct crash_fs *fs = crash_fs_create(0);
    omendb *db = NULL, *reader = NULL;
    omendb_rows *rows = NULL;
    char used[64];
    options.vfs = &fs->vfs;
    options.threads = 0;
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_OK);
    omendb_collection *collection = purge_collection(db, "docs", OMENDB_F32);
    CHECK_EQ_INT(purge_fill(collection, 0, 50), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    options.read_only = 1;
    CHECK_EQ_INT(omendb_open("/db", &options, &reader), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(collection, NULL, 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    struct version *version = version_acquire(collection->collection);
    CHECK_EQ_INT(version->segment_count, 1);
    snprintf(used, sizeof used, "seg-%llu may hold deleted rows and is in use by this process",
             (unsigned long long)version->segments[0]->file->entry.number);
    version_release(version);
    CHECK_EQ_INT(omendb_scan(collection, NULL, 0, 50, &rows), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(collection, NULL, 7), OMENDB_OK);
    fs->vfs.list = purge_list_backwards;
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), used) != NULL);
    omendb_rows_close(rows);
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "holds MANIFEST-") != NULL);
    CHECK_EQ_INT(omendb_close(reader), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(fs);
}

/* A reader in another process: waits for a byte before each step, and answers with one. */
static void purge_read_in_child(int in, int out, int refresh)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_collection *collection = NULL;
    omendb_rows *rows = NULL;
    omendb *db = NULL;
    float vector[PURGE_DIM], expected[PURGE_DIM];
    uint64_t id, seen = 0;
    char step = 'o';
    options.read_only = 1;
    if (omendb_open(purge_path, &options, &db) != OMENDB_OK ||
        omendb_collection_open(db, "docs", NULL, &collection) != OMENDB_OK ||
        omendb_scan(collection, NULL, 0, PURGE_ROWS, &rows) != OMENDB_OK ||
        write(out, &step, 1) != 1 || read(in, &step, 1) != 1)
        _exit(1);
    if (refresh && omendb_refresh(db) != OMENDB_OK)
        _exit(2);
    if (refresh && (write(out, &step, 1) != 1 || read(in, &step, 1) != 1))
        _exit(3);
    while (omendb_rows_next(rows, &id, OMENDB_F32, vector) == OMENDB_OK) {
        support_vector(id, PURGE_DIM, expected);
        if (id != seen++ || memcmp(vector, expected, sizeof vector) != 0)
            _exit(4);
    }
    omendb_rows_close(rows);
    omendb_collection_close(collection);
    _exit(seen == PURGE_ROWS && omendb_close(db) == OMENDB_OK ? 0 : 5);
}

static void purge_check_reader(const char *name, int refresh)
{
    int to[2], from[2], status;
    char step;
    omendb_collection *collection;
    omendb *db = purge_prepare(name, &collection);
    CHECK(db != NULL && pipe(to) == 0 && pipe(from) == 0);
    pid_t child = fork();
    if (child == 0) {
        close(to[1]); /* the test that fails ends the child, too */
        close(from[0]);
        purge_read_in_child(to[0], from[1], refresh);
    }
    CHECK(child > 0 && read(from[0], &step, 1) == 1);
    CHECK_EQ_INT(omendb_delete(collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "holds MANIFEST-") != NULL);
    if (refresh) {
        CHECK(write(to[1], "r", 1) == 1 && read(from[0], &step, 1) == 1);
        CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_BUSY);
    }
    CHECK(write(to[1], "c", 1) == 1);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK_EQ_INT(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0);
    CHECK_EQ_INT(omendb_purge(db, "docs"), OMENDB_OK);
    CHECK_EQ_INT(purge_grep_value(7, OMENDB_F32), 0);
    close(to[0]);
    close(to[1]);
    close(from[0]);
    close(from[1]);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(purge_does_not_overwrite_what_another_process_reads)
{
    purge_check_reader("reader", 0);
}

TEST(purge_does_not_overwrite_what_a_cursor_of_a_refreshed_reader_reads)
{
    purge_check_reader("refreshed", 1);
}

/* ------------------------------------------------------------------------------------------------
 * order, and crashes */

#define PURGE_CRASH_ROWS 60

static int (*purge_true_unlink)(void *context, void *directory, const char *name);
static int purge_unlinked, purge_not_zero;

/* What is unlinked must be zeros by then, and be so on the disk. */
static int purge_watch_unlink(void *context, void *directory, const char *name)
{
    const struct crash_fs *fs = context;
    enum storage_kind kind;
    uint64_t number;
    struct crash_entry *entry = crash_find(directory, name);
    if (storage_parse_name(name, &kind, &number) && kind != STORAGE_MANIFEST && entry != NULL) {
        const struct crash_inode *inode = &fs->inodes[entry->inode];
        purge_unlinked++;
        for (uint64_t i = 0; i < inode->size; i++)
            purge_not_zero += inode->data[i] != 0;
    }
    return purge_true_unlink(context, directory, name);
}

/* A database with two collections in it, of which rows and one collection are deleted. */
static omendb *purge_crash_open(struct crash_fs *fs)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db = NULL;
    options.vfs = &fs->vfs;
    options.threads = 0;
    options.wal_limit = 128 << 10;
    return omendb_open("/db", &options, &db) == OMENDB_OK ? db : NULL;
}

static omendb *purge_crash_prepare(struct crash_fs *fs)
{
    omendb *db = purge_crash_open(fs);
    omendb_collection *one = purge_collection(db, "one", OMENDB_F32),
                      *two = purge_collection(db, "two", OMENDB_F32);
    int code = purge_fill(one, 0, PURGE_CRASH_ROWS);
    code |= purge_fill(two, 1000, PURGE_CRASH_ROWS);
    code |= omendb_checkpoint(db);
    for (uint64_t id = 0; id < 5; id++)
        code |= omendb_delete(one, NULL, id);
    code |= support_put(one, NULL, 9, 100009, PURGE_DIM);
    omendb_collection_close(one);
    omendb_collection_close(two);
    code |= omendb_collection_drop(db, "two");
    return code == OMENDB_OK ? db : NULL;
}

/* Files of the crash file system, by name, that hold deleted bytes. */
static int purge_crash_grep(struct crash_fs *fs)
{
    const uint64_t gone[] = {0, 1, 2, 3, 4, 9, 1000, 1030, 1059};
    const struct crash_directory *directory = crash_directory(fs, "/db");
    int found = 0;
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++) {
        uint8_t bytes[PURGE_DIM * sizeof(float)];
        size_t length = purge_bytes(gone[i], OMENDB_F32, bytes);
        for (size_t e = 0; e < directory->count; e++) {
            const struct crash_inode *inode = &fs->inodes[directory->entries[e].inode];
            found +=
                inode->size >= length && purge_has(inode->data, (size_t)inode->size, bytes, length);
        }
    }
    return found;
}

static void purge_check_after_crash(struct crash_fs *fs)
{
    omendb *db = purge_crash_open(fs);
    CHECK(db != NULL);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    omendb_collection *one = purge_collection(db, "one", OMENDB_F32);
    CHECK(purge_count(one, PURGE_CRASH_ROWS - 5));
    omendb_collection_close(one);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    CHECK_EQ_INT(purge_crash_grep(fs), 0);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(purge_overwrites_all_that_it_unlinks)
{
    struct crash_fs *fs = crash_fs_create(0);
    omendb *db = purge_crash_prepare(fs);
    CHECK(db != NULL && purge_crash_grep(fs) > 0);
    purge_true_unlink = fs->vfs.unlink;
    fs->vfs.unlink = purge_watch_unlink;
    purge_unlinked = purge_not_zero = 0;
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    CHECK(purge_unlinked >= 3); /* the log, and what the checkpoints wrote */
    CHECK_EQ_INT(purge_not_zero, 0);
    CHECK_EQ_INT(purge_crash_grep(fs), 0);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(fs);
}

/* The next checkpoint collects what the purge had to leave for a cursor. */
TEST(purge_that_was_refused_has_the_rest_overwritten_when_it_is_collected)
{
    omendb_rows *rows;
    struct crash_fs *fs = crash_fs_create(0);
    omendb *db = purge_crash_prepare(fs);
    omendb_collection *one = db == NULL ? NULL : purge_collection(db, "one", OMENDB_F32);
    CHECK(one != NULL);
    CHECK_EQ_INT(omendb_scan(one, NULL, 0, 100, &rows), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_BUSY);
    purge_true_unlink = fs->vfs.unlink;
    fs->vfs.unlink = purge_watch_unlink;
    purge_unlinked = purge_not_zero = 0;
    for (uint64_t id = 500; id < 502; id++) {
        CHECK_EQ_INT(support_put(one, NULL, id, id, PURGE_DIM), OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
        CHECK((purge_crash_grep(fs) > 0) == (id == 500));
        if (id == 500)
            omendb_rows_close(rows);
    }
    CHECK(purge_unlinked > 0);
    CHECK(purge_not_zero < 1024); /* the log of a put is no business of a purge */
    omendb_collection_close(one);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(fs);
}

TEST(purge_can_be_repeated_after_dying_in_any_call)
{
    for (uint64_t at = 1, finished = 0; !finished; at++) {
        CHECK(at < 2000);
        struct crash_fs *fs = crash_fs_create(0);
        omendb *db = purge_crash_prepare(fs);
        CHECK(db != NULL);
        crash_die_at(fs, at);
        finished = omendb_purge(db, NULL) == OMENDB_OK;
        omendb_close(db);
        crash_faults_begin(fs, 0, 0, 0, 0, 0);
        purge_check_after_crash(fs);
        crash_fs_destroy(fs);
        if (test_failures != 0)
            fprintf(stderr, "    died in call %llu\n", (unsigned long long)at);
        CHECK_EQ_INT(test_failures, 0);
    }
}

TEST(purge_survives_the_loss_of_power_at_any_moment)
{
    struct support_random random = {support_seed(11)};
    struct crash_fs *fs = crash_fs_create(1);
    struct crash_replay replay;
    omendb *db = purge_crash_prepare(fs);
    CHECK(db != NULL);
    size_t begin = fs->event_count;
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    size_t end = fs->event_count;
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_replay_begin(&replay, fs, NULL, NULL);
    while (replay.position < end) {
        crash_replay_step(&replay);
        for (uint64_t i = support_scaled(6, 1); replay.position > begin && i > 0; i--) {
            enum crash_luck luck = (enum crash_luck)support_below(&random, CRASH_LUCKS);
            struct crash_fs *image = crash_image(&replay, luck, &random);
            purge_check_after_crash(image);
            crash_fs_destroy(image);
            if (test_failures != 0)
                fprintf(stderr, "    event %zu of %zu to %zu\n", replay.position, begin, end);
            CHECK_EQ_INT(test_failures, 0);
        }
    }
    crash_replay_end(&replay);
    crash_fs_destroy(fs);
}

/* ------------------------------------------------------------------------------------------------
 * beside other threads */

#define PURGE_BUSY_ROWS 2000

struct purge_others {
    omendb_collection *collection;
    _Atomic int stop;
    int status;
    uint64_t calls;
};

static void *purge_search_on(void *argument)
{
    struct purge_others *others = argument;
    float vector[PURGE_DIM];
    while (!atomic_load(&others->stop) && others->status == OMENDB_OK) {
        omendb_query query = OMENDB_QUERY_INIT;
        uint64_t ids[5];
        float distances[5];
        size_t count;
        support_vector(1000 + others->calls++ % 500, PURGE_DIM, vector);
        query.vector = vector;
        query.k = 5;
        others->status = omendb_search(others->collection, NULL, &query, ids, distances, &count);
        if (others->status == OMENDB_OK && (count != 5 || distances[0] != 0.0f))
            others->status = OMENDB_CORRUPT;
    }
    return NULL;
}

TEST(purge_goes_on_beside_searches_and_writers)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db = NULL;
    pthread_t thread;
    options.threads = 2;
    options.sync = OMENDB_SYNC_NORMAL;
    snprintf(purge_path, sizeof purge_path, "%s", support_path("beside"));
    CHECK_EQ_INT(omendb_open(purge_path, &options, &db), OMENDB_OK);
    struct purge_others others = {.collection = purge_collection(db, "docs", OMENDB_F32)};
    CHECK_EQ_INT(purge_fill(others.collection, 0, PURGE_BUSY_ROWS), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    CHECK(pthread_create(&thread, NULL, purge_search_on, &others) == 0);
    for (uint64_t round = 0; round < 5; round++) {
        for (uint64_t id = round * 100; id < round * 100 + 50; id++)
            CHECK_EQ_INT(omendb_delete(others.collection, NULL, id), OMENDB_OK);
        CHECK_EQ_INT(omendb_purge(db, round % 2 == 0 ? "docs" : NULL), OMENDB_OK);
        for (uint64_t id = round * 100; id < round * 100 + 50; id += 7)
            CHECK_EQ_INT(purge_grep_value(id, OMENDB_F32), 0);
    }
    atomic_store(&others.stop, 1);
    pthread_join(thread, NULL);
    CHECK_EQ_INT(others.status, OMENDB_OK);
    CHECK(purge_count(others.collection, PURGE_BUSY_ROWS - 250));
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    omendb_collection_close(others.collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST_MAIN(purge_leaves_no_byte_of_deleted_and_replaced_vectors_and_codes,
          purge_leaves_no_byte_of_vectors_stored_as_i8,
          purge_reaches_what_was_deleted_before_it_left_the_log,
          purge_moves_what_shares_a_file_and_reaches_dropped_collections,
          purge_has_no_work_where_nothing_was_deleted, purge_overwrites_hundreds_of_files,
          purge_names_the_transaction_that_pins_deleted_rows,
          purge_counts_all_pinned_rows_before_it_begins,
          purge_tells_of_a_transaction_that_ends_at_that_moment_what_it_was,
          purge_of_a_few_rows_keeps_the_graph, purge_does_not_overwrite_what_a_cursor_reads,
          purge_names_the_file_that_is_in_use_beside_others_that_are_held,
          purge_does_not_overwrite_what_another_process_reads,
          purge_does_not_overwrite_what_a_cursor_of_a_refreshed_reader_reads,
          purge_overwrites_all_that_it_unlinks,
          purge_that_was_refused_has_the_rest_overwritten_when_it_is_collected,
          purge_can_be_repeated_after_dying_in_any_call,
          purge_survives_the_loss_of_power_at_any_moment, purge_goes_on_beside_searches_and_writers)
