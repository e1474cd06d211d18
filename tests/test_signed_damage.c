/* test_signed_damage.c: numbers in the log, the manifest, segments and overlays of a whole database
 * are replaced, and all checksums made right again, so that only the bounds at their use stand
 * between them and memory.
 *
 * The database is then opened, checked, read, searched, written to, merged, and closed. Then must
 * hold: nothing crashes (the sanitized builds see what would go unnoticed), every call returns, and
 * an error has a sentence. What is read may be wrong: whoever can sign can also write wrong data.
 */
#include "internals.h"

#include "signing.h"
#include "support.h"
#include "test.h"

#define SIGNED_DIM 3

static struct support_random signed_random;
static uint64_t signed_tried, signed_refused;

static int signed_open(struct crash_fs *fs, uint32_t io, int read_only, omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.vfs = &fs->vfs;
    options.threads = 0;
    options.stall_timeout_ms = 1;
    options.sync = OMENDB_SYNC_NORMAL;
    options.io = io;
    options.read_only = (uint32_t)read_only;
    return omendb_open("/db", &options, db);
}

/* Records with a key, and most with metadata. */
static int signed_put_one(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                          uint64_t value)
{
    float vector[SIGNED_DIM];
    char key[32];
    omendb_record record = OMENDB_RECORD_INIT;
    support_vector(value, SIGNED_DIM, vector);
    snprintf(key, sizeof key, "key %llu", (unsigned long long)id);
    record.id = id;
    record.vector = vector;
    record.key = key;
    record.metadata = value % 4 == 0 ? NULL : "{\"a\":1,\"b\":[\"x\",\"y\"],\"c\":\"text\"}";
    return omendb_put(collection, txn, &record, NULL);
}

static void signed_put(omendb_collection *collection, omendb_txn *txn, uint64_t first,
                       uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        support_must(signed_put_one(collection, txn, first + i, first * 100 + i));
}

/* Every kind of file, and every kind of change in the log. */
static struct crash_fs *signed_prepare(void)
{
    struct crash_fs *fs = crash_fs_create(0), *copy;
    omendb *db = NULL;
    omendb_collection *a = NULL, *b = NULL, *c = NULL;
    omendb_txn *txn = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    float queries[64 * SIGNED_DIM];
    schema.dim = SIGNED_DIM;
    schema.M = 2;
    schema.ef_construction = 8;
    support_must(signed_open(fs, OMENDB_IO_MAP, 0, &db));
    support_must(omendb_collection_create(db, "a", &schema, &a));
    schema.scalar = OMENDB_I8;
    support_must(omendb_collection_create(db, "b", &schema, &b));
    signed_put(a, NULL, 0, 60);
    signed_put(b, NULL, 5, 9);
    support_must(omendb_optimize(db, NULL, NULL));
    for (uint64_t i = 0; i < 64; i++)
        support_vector(i + 900, SIGNED_DIM, queries + i * SIGNED_DIM);
    support_must(omendb_calibrate(a, queries, 64, OMENDB_F32, NULL, NULL));
    signed_put(a, NULL, 50, 20);
    signed_put(a, NULL, 30, 2); /* ids that do not ascend */
    support_must(omendb_checkpoint(db));
    support_must(omendb_delete(a, NULL, 3));
    for (uint64_t id = 8; id < 70; id += 3)
        support_must(omendb_update(a, NULL, id, "{\"a\":2,\"c\":null}"));
    support_must(omendb_checkpoint(db));
    schema.scalar = OMENDB_F32;
    support_must(omendb_collection_create(db, "c", &schema, &c));
    signed_put(a, NULL, 200, 3);
    signed_put(c, NULL, 7, 2);
    support_must(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn));
    signed_put(b, txn, 70, 2);
    support_must(omendb_delete(a, txn, 5));
    signed_put(a, txn, 6, 1);
    support_must(omendb_txn_commit(txn));
    omendb_collection_close(c);
    support_must(omendb_collection_drop(db, "c"));
    copy = crash_fs_copy(fs);
    omendb_collection_close(a);
    omendb_collection_close(b);
    support_must(omendb_close(db));
    crash_fs_destroy(fs);
    return copy;
}

/* ------------------------------------------------------------------------------------------------
 * changes */

/* A number that is likely to be one too many, or far too many. */
static void signed_change(uint8_t *bytes, uint64_t size)
{
    static const uint64_t values[] = {0,     1,          2,          3,         255,       256,
                                      65535, UINT32_MAX, UINT64_MAX, INT64_MAX, 0x7fc00000};
    const uint64_t at = support_below(&signed_random, size - 7) & ~UINT64_C(3);
    uint64_t value = values[support_below(&signed_random, 11)];
    if (support_below(&signed_random, 3) == 0)
        value = format_get32(bytes + at) + (support_below(&signed_random, 2) != 0 ? 1 : UINT64_MAX);
    if (support_below(&signed_random, 3) == 0)
        format_put64(bytes + at, value);
    else
        format_put32(bytes + at, (uint32_t)value);
}

/* A field of a record, or of its payload: mostly of the first bytes, where counts are. */
static void signed_change_log(struct crash_fs *fs)
{
    struct crash_inode *log = signed_file(fs, "wal-", 0);
    if (support_below(&signed_random, 12) == 0) {
        signed_change(log->data + 8, FORMAT_HEADER_BYTES - 8 - 8);
        storage_header_end(log->data);
        return;
    }
    uint64_t at = FORMAT_HEADER_BYTES, chosen = at;
    for (uint64_t seen = 1; at + FORMAT_RECORD_BYTES < log->size; seen++) {
        const uint32_t payload = format_get32(log->data + at);
        if (format_get64(log->data + at + FORMAT_RECORD_LOG_ID) == 0)
            break;
        if (support_below(&signed_random, seen) == 0)
            chosen = at;
        at += FORMAT_RECORD_BYTES + format_align(payload, FORMAT_RECORD_ALIGN);
    }
    uint8_t *record = log->data + chosen;
    const uint32_t payload = format_get32(record);
    if (support_below(&signed_random, 8) == 0)
        signed_change(record + FORMAT_RECORD_SEQUENCE,
                      FORMAT_RECORD_BYTES - FORMAT_RECORD_SEQUENCE);
    else
        signed_change(record + FORMAT_RECORD_BYTES,
                      payload > 72 && support_below(&signed_random, 4) != 0 ? 72 : payload);
    signed_record(record);
}

static void signed_change_manifest(struct crash_fs *fs)
{
    struct crash_inode *manifest = signed_file(fs, "MANIFEST-", 0);
    signed_change(manifest->data + FORMAT_MANIFEST_COMMIT, manifest->size - FORMAT_MANIFEST_COMMIT);
    signed_manifest(fs);
}

/* Of a file that the manifest names: the footer, or a section. */
static void signed_change_segment(struct crash_fs *fs)
{
    struct crash_inode *manifest = signed_file(fs, "MANIFEST-", 0);
    const uint32_t files = format_get32(manifest->data + FORMAT_MANIFEST_FILES);
    const uint8_t *entry = manifest->data + FORMAT_MANIFEST_BYTES +
                           support_below(&signed_random, files) * FORMAT_FILE_BYTES;
    const uint64_t number = format_get64(entry + FORMAT_FILE_NUMBER);
    const int overlay = format_get32(entry + FORMAT_FILE_KIND) == FORMAT_KIND_OVERLAY;
    struct crash_inode *file = signed_file(fs, overlay ? "ovl-" : "seg-", number);
    const uint64_t data = file->size / BLOCK_BYTES * BLOCK_BYTES;
    const uint64_t footer = file->size - data;
    uint8_t *at = file->data + data;
    if (support_below(&signed_random, 2) == 0) {
        signed_change(at, footer - FORMAT_TRAILER_BYTES);
    } else {
        /* a section: the first bytes of it, as sections are mostly padding */
        const uint32_t parts = format_get32(at + footer - FORMAT_TRAILER_BYTES + 16);
        const uint32_t sections = format_get32(at + footer - FORMAT_TRAILER_BYTES + 20);
        const uint8_t *section = at + (size_t)parts * FORMAT_PART_BYTES +
                                 support_below(&signed_random, sections) * FORMAT_SECTION_BYTES;
        const uint64_t offset = format_get64(section + FORMAT_SECTION_OFFSET);
        const uint64_t length = format_get64(section + FORMAT_SECTION_LENGTH);
        /* an earlier change may have been to the section's place */
        if (length >= 8 && offset < data && length <= data - offset)
            signed_change(file->data + offset, length);
    }
    signed_segment(fs, file, number);
}

/* ------------------------------------------------------------------------------------------------
 * use */

static int signed_is_told(int status)
{
    const int told = status == OMENDB_OK || status == OMENDB_DONE ||
                     (status != OMENDB_MISUSE && omendb_errmsg()[0] != '\0');
    if (!told)
        fprintf(stderr, "    %s: %s\n", omendb_strerror(status), omendb_errmsg());
    return told;
}

static void signed_ignore(void *context, const char *line)
{
    (void)context;
    (void)line;
}

/* Of the lists of columns and the indexes of ids and keys: one condition, and some taken together.
 */
static int signed_use_filters(omendb *db, omendb_collection *collection)
{
    static const char *const texts[] = {"a = 1", "b = 'x' AND c = 'text'",
                                        "a < 1 OR NOT (c = 'other')",
                                        "_key IN ('key 9', 'key 33') OR _id BETWEEN 7 AND 40",
                                        "NOT (_id BETWEEN 9 AND 60) AND c = 'text'"};
    int good = 1;
    for (int i = 0; i < 5 && good; i++) {
        omendb_filter *filter = NULL;
        omendb_rows *rows = NULL;
        uint64_t count = 0;
        good = signed_is_told(omendb_filter_compile(db, texts[i], &filter));
        if (filter != NULL)
            good =
                signed_is_told(omendb_count_matching(collection, NULL, filter, NULL, NULL, &count));
        if (filter != NULL && good)
            good = signed_is_told(
                omendb_scan_matching(collection, NULL, filter, 0, UINT64_MAX - 1, &rows));
        for (int status = OMENDB_OK; rows != NULL && good && status == OMENDB_OK;)
            good = signed_is_told(status = omendb_rows_next(rows, NULL, OMENDB_F32, NULL));
        omendb_rows_close(rows);
        omendb_filter_free(filter);
    }
    return good;
}

static int signed_use_collection(omendb *db, const char *name)
{
    float vector[SIGNED_DIM] = {1, 2, 3}, distances[5];
    omendb_collection *collection = NULL;
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_query query = OMENDB_QUERY_INIT;
    uint64_t ids[5];
    size_t count;
    int good = 1, status = omendb_collection_open(db, name, NULL, &collection);
    if (status != OMENDB_OK)
        return signed_is_told(status);
    omendb_collection_schema(collection, &schema);
    good = signed_is_told(omendb_collection_get_stats(collection, &stats));
    query.k = 5;
    query.vector = vector;
    for (int i = 0; i < 4 && good && schema.dim <= SIGNED_DIM; i++) {
        query.exact = i == 1;
        query.recall = i == 2 ? 0.9f : 0.0f;
        query.vector = i == 3 ? NULL : vector;
        query.id = 12;
        good = signed_is_told(omendb_search(collection, NULL, &query, ids, distances, &count));
    }
    if (good)
        good = signed_use_filters(db, collection);
    if (good && schema.dim == SIGNED_DIM)
        good = signed_is_told(signed_put_one(collection, NULL, 12, 77));
    if (good)
        good = signed_is_told(omendb_update(collection, NULL, 14, "{\"a\":null,\"d\":2.5}"));
    if (good)
        good = signed_is_told(omendb_delete_key(collection, NULL, "key 15"));
    if (good)
        good = signed_is_told(omendb_delete(collection, NULL, 13));
    omendb_collection_close(collection);
    return good;
}

static int signed_use(omendb *db, int read_only)
{
    char name[256];
    uint64_t digest;
    int good = signed_is_told(omendb_check(db, signed_ignore, NULL, NULL));
    if (good)
        good = signed_is_told(support_digest(db, NULL, &digest));
    for (size_t i = 0; good && omendb_collection_name(db, i, name, sizeof name) == OMENDB_OK; i++)
        good = signed_use_collection(db, name);
    if (good && !read_only)
        good = signed_is_told(omendb_optimize(db, NULL, NULL));
    return good && (!read_only || signed_is_told(omendb_refresh(db)));
}

static void signed_loop(void (*change)(struct crash_fs *fs), uint64_t seed, uint64_t runs)
{
    struct crash_fs *start = signed_prepare();
    signed_random.state = support_seed(seed);
    signed_tried = signed_refused = 0;
    for (uint64_t i = 0; i < runs; i++) {
        struct crash_fs *disk = crash_fs_copy(start);
        omendb *db = NULL;
        disk->recording = 0;
        for (uint64_t changes = 1 + support_below(&signed_random, 2); changes > 0; changes--)
            change(disk);
        const int read_only = i % 5 == 4;
        const int status =
            signed_open(disk, i % 2 ? OMENDB_IO_PREAD : OMENDB_IO_MAP, read_only, &db);
        int good = signed_is_told(status);
        signed_tried++;
        signed_refused += status != OMENDB_OK;
        if (status == OMENDB_OK)
            good = signed_use(db, read_only);
        omendb_close(db);
        crash_fs_destroy(disk);
        if (!good)
            fprintf(stderr, "    run %llu\n", (unsigned long long)i);
        CHECK(good);
    }
    crash_fs_destroy(start);
    printf("  %llu changed, %llu refused at once\n", (unsigned long long)signed_tried,
           (unsigned long long)signed_refused);
}

TEST(a_log_of_wrong_numbers_is_refused_or_read_in_bounds)
{
    signed_loop(signed_change_log, 1, support_scaled(4000, 400));
    CHECK(signed_refused > signed_tried / 20 && signed_refused < signed_tried);
}

TEST(a_manifest_of_wrong_numbers_is_refused_or_read_in_bounds)
{
    signed_loop(signed_change_manifest, 2, support_scaled(4000, 400));
    CHECK(signed_refused > signed_tried / 20 && signed_refused < signed_tried);
}

TEST(segments_of_wrong_numbers_are_refused_or_read_in_bounds)
{
    signed_loop(signed_change_segment, 3, support_scaled(4000, 400));
    CHECK(signed_refused > signed_tried / 20 && signed_refused < signed_tried);
}

/* ------------------------------------------------------------------------------------------------
 * documents of a segment, each kind of damage by itself */

#define SIGNED_RECORDS 10

static uint8_t *signed_section(struct crash_inode *file, uint32_t type)
{
    const uint64_t data = file->size / BLOCK_BYTES * BLOCK_BYTES;
    const uint8_t *footer = file->data + data, *trailer = file->data + file->size;
    trailer -= FORMAT_TRAILER_BYTES;
    const uint32_t sections = format_get32(trailer + FORMAT_TRAILER_SECTIONS);
    const uint8_t *at = footer + format_get32(trailer + FORMAT_TRAILER_PARTS) * FORMAT_PART_BYTES;
    for (uint32_t i = 0; i < sections; i++, at += FORMAT_SECTION_BYTES)
        if (format_get32(at + FORMAT_SECTION_TYPE) == type)
            return file->data + format_get64(at + FORMAT_SECTION_OFFSET);
    support_must(OMENDB_NOTFOUND);
    return NULL;
}

static void signed_end_beyond_all(struct crash_inode *file)
{
    format_put64(signed_section(file, SECTION_DOCUMENT_ENDS) + 8, UINT64_C(1) << 40);
}

static void signed_end_before_its_beginning(struct crash_inode *file)
{
    format_put64(signed_section(file, SECTION_DOCUMENT_ENDS) + 8, 8);
}

static void signed_document_that_is_none(struct crash_inode *file)
{
    const uint8_t *ends = signed_section(file, SECTION_DOCUMENT_ENDS);
    memset(signed_section(file, SECTION_DOCUMENTS) + format_get64(ends), 0xff, 16);
}

static struct crash_fs *signed_prepare_documents(void)
{
    struct crash_fs *fs = crash_fs_create(0);
    omendb *db = NULL;
    omendb_collection *a = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = SIGNED_DIM;
    support_must(signed_open(fs, OMENDB_IO_MAP, 0, &db));
    support_must(omendb_collection_create(db, "a", &schema, &a));
    signed_put(a, NULL, 0, SIGNED_RECORDS);
    support_must(omendb_checkpoint(db));
    omendb_collection_close(a);
    support_must(omendb_close(db));
    return fs;
}

/* How many records say that their documents are damaged; the others give theirs. */
static int signed_damaged_documents(struct crash_fs *fs)
{
    omendb *db = NULL;
    omendb_collection *a = NULL;
    int damaged = 0, others = 0;
    support_must(signed_open(fs, OMENDB_IO_MAP, 0, &db));
    support_must(omendb_collection_open(db, "a", NULL, &a));
    for (uint64_t id = 0; id < SIGNED_RECORDS; id++) {
        char key[32], wanted[32];
        const int status = omendb_get_key(a, NULL, id, key, sizeof key, NULL);
        snprintf(wanted, sizeof wanted, "key %llu", (unsigned long long)id);
        damaged += status == OMENDB_CORRUPT;
        others += status == OMENDB_OK && strcmp(key, wanted) == 0 &&
                  omendb_find(a, NULL, key, NULL) == OMENDB_OK;
    }
    omendb_collection_close(a);
    support_must(omendb_close(db));
    return damaged + others == SIGNED_RECORDS ? damaged : -1;
}

TEST(damaged_documents_are_told_and_salvage_saves_their_records_without_them)
{
    static void (*const damage[])(struct crash_inode * file) = {
        signed_end_beyond_all, signed_end_before_its_beginning, signed_document_that_is_none};
    for (size_t i = 0; i < sizeof damage / sizeof damage[0]; i++) {
        struct crash_fs *fs = signed_prepare_documents();
        struct crash_inode *file = signed_file(fs, "seg-", 0);
        struct support_report report = {"are damaged; they are saved without", 0, 0};
        omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
        omendb_options options = OMENDB_OPTIONS_INIT;
        damage[i](file);
        signed_segment(fs, file, format_get64(file->data + FORMAT_SEGMENT_NUMBER));
        const int damaged = signed_damaged_documents(fs);
        CHECK(damaged == 1 || damaged == 2); /* of an end that is wrong two know */
        options.vfs = &fs->vfs;
        options.threads = 0;
        CHECK_EQ_INT(omendb_salvage("/db", "/new", &options, support_note, &report, &result),
                     OMENDB_OK);
        CHECK_EQ_INT(result.records, SIGNED_RECORDS);
        CHECK_EQ_INT(report.told, 1);
        crash_fs_destroy(fs);
    }
}

/* ------------------------------------------------------------------------------------------------
 * documents of an overlay */

enum { SIGNED_UPDATED = 3 }; /* of SIGNED_RECORDS, from the first on */

static void signed_row_that_is_none(struct crash_inode *file)
{
    format_put32(signed_section(file, SECTION_OVERLAY_ROWS) + 8, SIGNED_RECORDS);
}

static void signed_rows_that_do_not_ascend(struct crash_inode *file)
{
    format_put32(signed_section(file, SECTION_OVERLAY_ROWS) + 4, 0);
}

static void signed_commit_that_is_none(struct crash_inode *file)
{
    format_put64(signed_section(file, SECTION_OVERLAY_COMMITS) + 8, 0);
}

static void signed_commit_to_come(struct crash_inode *file)
{
    format_put64(signed_section(file, SECTION_OVERLAY_COMMITS) + 8, 1000);
}

static struct crash_fs *signed_prepare_overlay(void)
{
    struct crash_fs *fs = signed_prepare_documents();
    omendb *db = NULL;
    omendb_collection *a = NULL;
    support_must(signed_open(fs, OMENDB_IO_MAP, 0, &db));
    support_must(omendb_collection_open(db, "a", NULL, &a));
    for (uint64_t id = 0; id < SIGNED_UPDATED; id++)
        support_must(omendb_update(a, NULL, id, "{\"a\":2}"));
    support_must(omendb_checkpoint(db));
    omendb_collection_close(a);
    support_must(omendb_close(db));
    return fs;
}

/* A row that lies is told by opening, what lies of a document by who asks for that. Salvage finds
 * one between two others again, and does not ask for commits. */
TEST(damaged_updates_are_told_and_salvage_saves_what_their_records_had_before)
{
    static const struct {
        void (*damage)(struct crash_inode *file);
        int opens, damaged; /* records, at most */
        uint64_t told;
    } cases[] = {
        {signed_end_beyond_all, 1, 2, 1},         {signed_end_before_its_beginning, 1, 2, 1},
        {signed_document_that_is_none, 1, 1, 1},  {signed_commit_that_is_none, 1, 1, 0},
        {signed_commit_to_come, 1, 1, 0},         {signed_row_that_is_none, 0, 0, 1},
        {signed_rows_that_do_not_ascend, 0, 0, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct crash_fs *fs = signed_prepare_overlay();
        struct crash_inode *file = signed_file(fs, "ovl-", 0);
        struct support_report report = {"had before", 0, 0};
        omendb *db = NULL;
        omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
        omendb_options options = OMENDB_OPTIONS_INIT;
        cases[i].damage(file);
        signed_segment(fs, file, format_get64(file->data + FORMAT_SEGMENT_NUMBER));
        const int status = signed_open(fs, OMENDB_IO_MAP, 0, &db);
        CHECK_EQ_INT(status, cases[i].opens ? OMENDB_OK : OMENDB_CORRUPT);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        const int damaged = cases[i].opens ? signed_damaged_documents(fs) : 0;
        CHECK((damaged > 0) == cases[i].opens && damaged <= cases[i].damaged);
        options.vfs = &fs->vfs;
        options.threads = 0;
        CHECK_EQ_INT(omendb_salvage("/db", "/new", &options, support_note, &report, &result),
                     OMENDB_OK);
        CHECK_EQ_INT(result.records, SIGNED_RECORDS);
        CHECK_EQ_INT(result.problems, cases[i].told);
        CHECK_EQ_INT(report.told, cases[i].told);
        crash_fs_destroy(fs);
    }
}

TEST_MAIN(a_log_of_wrong_numbers_is_refused_or_read_in_bounds,
          a_manifest_of_wrong_numbers_is_refused_or_read_in_bounds,
          segments_of_wrong_numbers_are_refused_or_read_in_bounds,
          damaged_documents_are_told_and_salvage_saves_their_records_without_them,
          damaged_updates_are_told_and_salvage_saves_what_their_records_had_before)
