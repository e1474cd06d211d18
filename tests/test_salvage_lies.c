/* test_salvage_lies.c: salvage of a database whose checksums are right and whose numbers are not,
 * and of one of which not all that it was is left.
 *
 * Each test says which sentences are told, how often, and how many records are saved. */
#include "internals.h"

#include "ruins.h"
#include "test.h"

/* Rows of "plain": 30 in the first segment and 20 in the second, less one that was deleted; "loose"
 * has 39, "late" 9. A prepared transaction that was committed put id 24 and deleted 25. */
enum { LIES_PLAIN = 48, LIES_LOOSE = 39, LIES_LATE = 9 };
#define LIES_ALL (LIES_PLAIN + LIES_LOOSE + LIES_LATE)

static omendb_salvage_result lies_result;

/* Salvages the disk, which is freed. 1 where the sentence was told so often, and no line is without
 * its problem, and so many records were saved, which the new database has. */
static int lies_salvaged(struct crash_fs *disk, const char *wanted, uint64_t told, uint64_t records)
{
    struct support_report report = {wanted, 0, 0};
    omendb_options options;
    omendb *db = NULL;
    omendb_stats stats = OMENDB_STATS_INIT;
    ruins_options(disk, &options);
    omendb_salvage_result_init(&lies_result);
    int status = omendb_salvage("/db", "/new", &options, support_note, &report, &lies_result);
    if (status == OMENDB_OK)
        status = omendb_open("/new", &options, &db);
    if (status == OMENDB_OK)
        status = support_check(db);
    if (status == OMENDB_OK)
        status = omendb_get_stats(db, &stats);
    const int closed = omendb_close(db);
    crash_fs_destroy(disk);
    if (status == OMENDB_OK && closed == OMENDB_OK && report.told == told &&
        report.lines == lies_result.problems && lies_result.records == records &&
        stats.records == records)
        return 1;
    fprintf(stderr, "    %s (%s), told %llu times of %llu lines, %llu records\n",
            omendb_strerror(status), omendb_errmsg(), (unsigned long long)report.told,
            (unsigned long long)report.lines, (unsigned long long)lies_result.records);
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * places */

static uint8_t *lies_manifest(struct crash_fs *fs)
{
    return ruins_file(fs, "MANIFEST-")->data;
}

/* The fixed bytes of a collection in the manifest. */
static uint8_t *lies_collection(struct crash_fs *fs, const char *name)
{
    uint8_t *manifest = lies_manifest(fs);
    uint8_t *at = manifest + FORMAT_MANIFEST_BYTES +
                  (size_t)format_get32(manifest + FORMAT_MANIFEST_FILES) * FORMAT_FILE_BYTES;
    while (strcmp((const char *)at + FORMAT_COLLECTION_BYTES, name) != 0)
        at += FORMAT_COLLECTION_BYTES +
              format_align(format_get32(at + FORMAT_COLLECTION_NAME_BYTES), 8) +
              (size_t)format_get32(at + FORMAT_COLLECTION_SEGMENTS) * FORMAT_REFERENCE_BYTES +
              format_get32(at + FORMAT_COLLECTION_CALIBRATION);
    return at;
}

/* What the manifest says of a segment of it. */
static uint8_t *lies_reference(struct crash_fs *fs, const char *name, size_t index)
{
    uint8_t *collection = lies_collection(fs, name);
    return collection + FORMAT_COLLECTION_BYTES +
           format_align(format_get32(collection + FORMAT_COLLECTION_NAME_BYTES), 8) +
           index * FORMAT_REFERENCE_BYTES;
}

/* The part of the first segment that "loose" has. */
static uint32_t lies_part(struct crash_fs *fs)
{
    return format_get32(lies_reference(fs, "loose", 0) + FORMAT_REFERENCE_PART);
}

static uint64_t lies_first_segment(struct crash_fs *fs)
{
    return format_get64(lies_reference(fs, "plain", 0) + FORMAT_REFERENCE_FILE);
}

static uint64_t lies_overlay(struct crash_fs *fs)
{
    return format_get64(lies_reference(fs, "plain", 0) + FORMAT_REFERENCE_OVERLAY_FILE);
}

/* The bytes of a part in the footer. */
static uint8_t *lies_info(struct crash_inode *file, uint32_t part)
{
    return file->data + file->size / BLOCK_BYTES * BLOCK_BYTES + (size_t)part * FORMAT_PART_BYTES;
}

/* The entry of a section in the footer. */
static uint8_t *lies_section(struct crash_inode *file, uint32_t part, enum section_type type)
{
    uint8_t *trailer = file->data + file->size - FORMAT_TRAILER_BYTES;
    uint8_t *at = lies_info(file, format_get32(trailer + FORMAT_TRAILER_PARTS));
    while (format_get32(at + FORMAT_SECTION_PART) != part ||
           format_get32(at + FORMAT_SECTION_TYPE) != (uint32_t)type)
        at += FORMAT_SECTION_BYTES;
    return at;
}

static uint64_t lies_offset(struct crash_inode *file, uint32_t part, enum section_type type)
{
    return format_get64(lies_section(file, part, type) + FORMAT_SECTION_OFFSET);
}

/* ------------------------------------------------------------------------------------------------
 * lies */

TEST(what_the_fixture_holds_is_saved)
{
    CHECK(lies_salvaged(ruins_of_all(), NULL, 0, LIES_ALL));
    CHECK_EQ_INT(lies_result.problems, 0);
}

TEST(a_collection_of_another_kind_than_its_segments_is_told_part_by_part)
{
    static const struct {
        size_t field;
        uint32_t value;
    } kinds[] = {{FORMAT_COLLECTION_DIM, 3}, {FORMAT_COLLECTION_SCALAR, OMENDB_F16}};
    for (size_t i = 0; i < 2; i++) {
        struct crash_fs *disk = ruins_of_all();
        format_put32(lies_collection(disk, "loose") + kinds[i].field, kinds[i].value);
        signed_manifest(disk);
        CHECK(lies_salvaged(disk, "\"loose\" is lost: its vectors are of another kind", 1,
                            LIES_PLAIN + LIES_LATE));
        CHECK_EQ_INT(lies_result.lost_rows, 40);
    }
    struct crash_fs *disk = ruins_of_all();
    const uint64_t number = lies_first_segment(disk);
    struct crash_inode *file = signed_file(disk, "seg-", number);
    format_put32(lies_info(file, lies_part(disk)) + FORMAT_PART_VECTOR_STRIDE, 4);
    signed_segment(disk, file, number);
    CHECK(lies_salvaged(disk, "\"loose\" is lost: its vectors are of another kind", 1,
                        LIES_PLAIN + LIES_LATE));
}

TEST(a_collection_whose_schema_makes_no_sense_is_told_and_the_others_are_saved)
{
    struct crash_fs *disk = ruins_of_all();
    format_put_float(lies_collection(disk, "loose") + FORMAT_COLLECTION_SCALE, 2.0f);
    signed_manifest(disk);
    CHECK(lies_salvaged(disk, "collection \"loose\" is lost: schema.scale is 2", 1,
                        LIES_PLAIN + LIES_LATE));
    CHECK_EQ_INT(lies_result.collections, 2);
}

TEST(a_part_that_is_not_there_is_told)
{
    struct crash_fs *disk = ruins_of_all();
    format_put32(lies_reference(disk, "loose", 0) + FORMAT_REFERENCE_PART, 9);
    signed_manifest(disk);
    CHECK(lies_salvaged(disk, "part 9 is not there: all that collection \"loose\"", 1,
                        LIES_PLAIN + LIES_LATE));
}

/* Deletions that are not where they are said to be: what was deleted is back. */
TEST(deletions_of_another_segment_are_not_believed)
{
    struct crash_fs *disk = ruins_of_all();
    format_put32(lies_reference(disk, "loose", 0) + FORMAT_REFERENCE_OVERLAY_PART, 9);
    signed_manifest(disk);
    CHECK(lies_salvaged(disk, "records of collection \"loose\" that were deleted or replaced", 1,
                        LIES_ALL + 1));
    CHECK_EQ_INT(lies_result.doubtful, 40);
    for (int i = 0; i < 2; i++) {
        disk = ruins_of_all();
        const uint64_t number = lies_overlay(disk);
        struct crash_inode *file = signed_file(disk, "ovl-", number);
        const uint32_t part =
            format_get32(lies_reference(disk, "loose", 0) + FORMAT_REFERENCE_OVERLAY_PART);
        uint8_t *info = lies_info(file, part);
        if (i == 0)
            format_put64(info + FORMAT_PART_TARGET_FILE, 77);
        else
            format_put32(info + FORMAT_PART_TARGET_PART, 77);
        signed_segment(disk, file, number);
        CHECK(lies_salvaged(disk, "records of collection \"loose\" that were deleted or replaced",
                            1, LIES_ALL + 1));
    }
}

/* Of a segment that cannot be opened, with one part that is doubtful and one that is not. */
TEST(a_segment_of_both_sorts_of_parts_is_lost_once)
{
    struct crash_fs *disk = ruins_of_all();
    const uint64_t number = lies_first_segment(disk);
    struct crash_inode *file = signed_file(disk, "seg-", number);
    format_put32(lies_reference(disk, "loose", 0) + FORMAT_REFERENCE_OVERLAY_PART, 9);
    signed_manifest(disk);
    file->data[file->size - FORMAT_TRAILER_BYTES] ^= 1;
    CHECK(lies_salvaged(disk, "all rows in it are lost", 2, 20 + 4 + 1 + LIES_LATE));
    CHECK_EQ_INT(lies_result.lost_files, 1);
}

TEST(a_deletion_of_a_row_that_is_not_there_deletes_none)
{
    struct crash_fs *disk = ruins_of_all();
    const uint64_t number = lies_overlay(disk);
    struct crash_inode *file = signed_file(disk, "ovl-", number);
    const uint32_t part =
        format_get32(lies_reference(disk, "loose", 0) + FORMAT_REFERENCE_OVERLAY_PART);
    format_put32(file->data + lies_offset(file, part, SECTION_TOMBSTONES), 1000);
    signed_segment(disk, file, number);
    CHECK(lies_salvaged(disk, NULL, 0, LIES_ALL + 1));
}

TEST(a_part_without_ids_or_vectors_or_rows_is_told)
{
    for (int i = 0; i < 3; i++) {
        struct crash_fs *disk = ruins_of_all();
        const uint64_t number = lies_first_segment(disk);
        struct crash_inode *file = signed_file(disk, "seg-", number);
        if (i == 2)
            format_put32(lies_info(file, lies_part(disk)) + FORMAT_PART_ROWS, 0);
        else
            format_put32(
                lies_section(file, lies_part(disk), i == 0 ? SECTION_IDS : SECTION_VECTORS) +
                    FORMAT_SECTION_TYPE,
                SECTION_TOMBSTONES);
        if (i == 2)
            format_put32(lies_info(file, lies_part(disk)) + FORMAT_PART_INDEXED_ROWS, 0);
        signed_segment(disk, file, number);
        CHECK(lies_salvaged(disk, "\"loose\" is lost: it has no ids, no vectors", i < 2,
                            LIES_PLAIN + LIES_LATE));
    }
}

/* Two rows with good ones between them, each of them a loss of its own. */
TEST(rows_that_are_no_records_are_told_by_their_ids)
{
    struct crash_fs *disk = ruins_of_all();
    const uint64_t number = lies_first_segment(disk);
    struct crash_inode *file = signed_file(disk, "seg-", number);
    uint8_t *vectors = file->data + lies_offset(file, lies_part(disk), SECTION_VECTORS);
    memset(vectors + 10 * 8, 0xff, 8);
    memset(vectors + 20 * 8, 0xff, 16);
    signed_segment(disk, file, number);
    CHECK(lies_salvaged(disk, "they are no records of this collection", 2, LIES_ALL - 3));
    CHECK_EQ_INT(lies_result.lost_rows, 3);
}

/* ------------------------------------------------------------------------------------------------
 * where the log begins */

TEST(commits_between_the_manifest_and_the_log_are_told)
{
    struct crash_fs *disk = ruins_of_all();
    uint8_t *manifest = lies_manifest(disk);
    const uint64_t commit = format_get64(manifest + FORMAT_MANIFEST_COMMIT);
    format_put64(manifest + FORMAT_MANIFEST_COMMIT, commit - 3);
    signed_manifest(disk);
    CHECK(lies_salvaged(disk, "those in between are lost", 1, LIES_ALL));
    /* What the manifest has already is not applied again: here the creation of "late". */
    disk = ruins_of_all();
    manifest = lies_manifest(disk);
    format_put64(manifest + FORMAT_MANIFEST_COMMIT, commit + 1);
    signed_manifest(disk);
    CHECK(lies_salvaged(disk, "or is of a collection of which nothing is known", 11,
                        LIES_PLAIN + LIES_LOOSE));
}

TEST(a_log_of_a_later_version_is_told_and_left_alone)
{
    struct crash_fs *disk = ruins_of_all();
    struct crash_inode *log = ruins_file(disk, "wal-");
    format_put32(log->data + FORMAT_HEADER_VERSION, FORMAT_VERSION + 1);
    storage_header_end(log->data);
    CHECK(lies_salvaged(disk, "use a later OmenDB", 1, 50 - 1 + LIES_LOOSE));
    CHECK_EQ_INT(lies_result.lost_files, 1);
}

TEST(a_backup_that_is_damaged_is_salvaged)
{
    struct crash_fs *disk = ruins_of_all();
    omendb_options options;
    omendb *db = NULL;
    omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
    ruins_options(disk, &options);
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_rollback_prepared(db, "waits"), OMENDB_OK);
    CHECK_EQ_INT(omendb_forget_prepared(db, "waits"), OMENDB_OK);
    CHECK_EQ_INT(omendb_forget_prepared(db, "done"), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(db, "/backup"), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_salvage("/backup", "/new", &options, NULL, NULL, &result), OMENDB_OK);
    CHECK_EQ_INT(result.records, LIES_ALL);
    CHECK_EQ_INT(result.problems, 0);
    crash_fs_destroy(disk);
}

TEST(a_directory_without_a_database_and_a_file_are_none)
{
    struct crash_fs *disk = crash_fs_create(0);
    omendb_options options, files = OMENDB_OPTIONS_INIT;
    char from[4200], to[4200];
    ruins_options(disk, &options);
    crash_fs_add_file(disk, "/db", "LOCK", "", 0);
    CHECK_EQ_INT(omendb_salvage("/db", "/new", &options, NULL, NULL, NULL), OMENDB_NOTFOUND);
    CHECK(strstr(omendb_errmsg(), "no file of a database is left in \"/db\"") != NULL);
    crash_fs_destroy(disk);
    snprintf(from, sizeof from, "%s", support_path("a-file"));
    snprintf(to, sizeof to, "%s", support_path("salvaged"));
    FILE *file = fopen(from, "w");
    CHECK(file != NULL && fclose(file) == 0);
    CHECK_EQ_INT(omendb_salvage(from, to, &files, NULL, NULL, NULL), OMENDB_FORMAT);
    CHECK(strstr(omendb_errmsg(), "is not a directory; a database is one") != NULL);
}

/* ------------------------------------------------------------------------------------------------
 * what is left of an older state */

/* A newest manifest that is damaged, and no CURRENT to name it. */
static void lies_lose_newest(struct crash_fs *disk)
{
    struct crash_inode *manifest = ruins_file(disk, "MANIFEST-");
    crash_fs_add_file(disk, "/db", "MANIFEST-1000", manifest->data, manifest->size);
    ruins_file(disk, "MANIFEST-")->data[66] ^= 1;
    crash_unlink_entry(disk, &disk->directories[0], crash_find(&disk->directories[0], "CURRENT"));
}

/* Without CURRENT the newest readable manifest is taken, and it is told that it is not the newest;
 * files that it does not know, or knows as of another kind, are looked at. */
TEST(files_beside_an_older_manifest_are_looked_at)
{
    struct crash_fs *disk = ruins_of_all();
    char name[STORAGE_NAME_BYTES];
    storage_name(STORAGE_SEGMENT, lies_overlay(disk), name);
    crash_fs_add_file(disk, "/db", name, "x", 1);
    crash_fs_add_file(disk, "/db", "seg-1", "x", 1);
    lies_lose_newest(disk);
    CHECK(lies_salvaged(disk, "is not the newest: segments are those that lie in the directory", 1,
                        LIES_ALL));
    CHECK_EQ_INT(lies_result.lost_files, 2);
}

/* The segment is of a collection that was dropped before the older manifest was written. */
TEST(segments_of_a_collection_that_was_dropped_do_not_bring_it_back)
{
    struct crash_fs *disk = ruins_of_all();
    struct crash_inode *file = signed_file(disk, "seg-", lies_first_segment(disk));
    uint8_t *info = lies_info(file, lies_part(disk));
    format_put64(info + FORMAT_PART_COLLECTION, 0);
    signed_segment(disk, file, lies_first_segment(disk));
    lies_lose_newest(disk);
    CHECK(lies_salvaged(disk, "is not the newest", 1, LIES_PLAIN + LIES_LATE));
    CHECK_EQ_INT(lies_result.collections, 3);
}

/* Of a part whose numbers make no collection nothing is taken. */
TEST(a_part_of_an_impossible_kind_is_passed_over)
{
    struct crash_fs *disk = ruins_of_all();
    struct crash_inode *file = signed_file(disk, "seg-", lies_first_segment(disk));
    format_put32(lies_info(file, lies_part(disk)) + FORMAT_PART_METRIC, 77);
    signed_segment(disk, file, lies_first_segment(disk));
    lies_manifest(disk)[90] ^= 1;
    CHECK(lies_salvaged(disk, "no manifest is readable", 1, LIES_PLAIN + LIES_LATE));
}

/* The drop of the first "a" lies in a hole. */
TEST(two_collections_of_one_name_are_both_saved)
{
    struct crash_fs *disk = crash_fs_create(0);
    omendb_options options;
    omendb *db = NULL;
    omendb_collection *a = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = RUINS_DIM;
    ruins_options(disk, &options);
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_OK);
    for (uint64_t i = 0; i < 2; i++) {
        CHECK_EQ_INT(omendb_collection_create(db, "a", &schema, &a), OMENDB_OK);
        CHECK_EQ_INT(support_put(a, NULL, i, i, RUINS_DIM), OMENDB_OK);
        omendb_collection_close(a);
        if (i == 0)
            CHECK_EQ_INT(omendb_collection_drop(db, "a"), OMENDB_OK);
    }
    struct crash_fs *copy = crash_fs_copy(disk);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(disk);
    struct crash_inode *log = ruins_file(copy, "wal-");
    uint64_t at = FORMAT_HEADER_BYTES;
    for (int i = 0; i < 2; i++)
        at += FORMAT_RECORD_BYTES + format_align(format_get32(log->data + at), FORMAT_RECORD_ALIGN);
    CHECK_EQ_INT(format_get32(log->data + at + FORMAT_RECORD_BYTES), CHANGE_DROP);
    log->data[at + FORMAT_RECORD_BYTES + 8] ^= 1;
    CHECK(lies_salvaged(copy, "two collections are called \"a\": the newer one is \"collection-2\"",
                        1, 2));
    CHECK_EQ_INT(lies_result.collections, 2);
}

/* More collections, prepared transactions and deletions than fit the first arrays and batches, and
 * vectors of which few fit a batch. */
TEST(much_of_everything_is_saved)
{
    enum { MANY = 70, ROWS = 1200, LARGE = 1500, LARGE_ROWS = 200 };
    static float vectors[LARGE_ROWS * LARGE];
    static uint64_t ids[ROWS];
    struct crash_fs *disk = crash_fs_create(0);
    omendb_options options;
    omendb *db = NULL;
    omendb_collection *a = NULL, *large = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = RUINS_DIM;
    ruins_options(disk, &options);
    options.wal_limit = 64 << 20;
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "a", &schema, &a), OMENDB_OK);
    for (uint64_t i = 0; i < ROWS; i++)
        ids[i] = i;
    for (size_t i = 0; i < LARGE_ROWS * LARGE; i++)
        vectors[i] = (float)(i % 97);
    CHECK_EQ_INT(omendb_put_batch(a, NULL, ROWS, ids, vectors, OMENDB_F32, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete_batch(a, NULL, ROWS - 5, ids, NULL), OMENDB_OK);
    schema.dim = LARGE;
    CHECK_EQ_INT(omendb_collection_create(db, "large", &schema, &large), OMENDB_OK);
    CHECK_EQ_INT(omendb_put_batch(large, NULL, LARGE_ROWS, ids, vectors, OMENDB_F32, NULL),
                 OMENDB_OK);
    for (uint64_t i = 0; i < MANY; i++) {
        char name[16];
        omendb_collection *more = NULL;
        omendb_txn *txn = NULL;
        snprintf(name, sizeof name, "more-%d", (int)i);
        schema.dim = RUINS_DIM;
        CHECK_EQ_INT(omendb_collection_create(db, name, &schema, &more), OMENDB_OK);
        omendb_collection_close(more);
        CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
        CHECK_EQ_INT(support_put(a, txn, 2000 + i, i, RUINS_DIM), OMENDB_OK);
        CHECK_EQ_INT(omendb_txn_prepare(txn, name), OMENDB_OK);
    }
    struct crash_fs *copy = crash_fs_copy(disk);
    omendb_collection_close(a);
    omendb_collection_close(large);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(disk);
    CHECK(lies_salvaged(copy, NULL, 0, 5 + LARGE_ROWS));
    CHECK_EQ_INT(lies_result.collections, MANY + 2);
    CHECK_EQ_INT(lies_result.problems, 0);
}

TEST_MAIN(what_the_fixture_holds_is_saved,
          a_collection_of_another_kind_than_its_segments_is_told_part_by_part,
          a_collection_whose_schema_makes_no_sense_is_told_and_the_others_are_saved,
          a_part_that_is_not_there_is_told, deletions_of_another_segment_are_not_believed,
          a_segment_of_both_sorts_of_parts_is_lost_once,
          a_deletion_of_a_row_that_is_not_there_deletes_none,
          a_part_without_ids_or_vectors_or_rows_is_told,
          rows_that_are_no_records_are_told_by_their_ids,
          commits_between_the_manifest_and_the_log_are_told,
          a_log_of_a_later_version_is_told_and_left_alone, a_backup_that_is_damaged_is_salvaged,
          a_directory_without_a_database_and_a_file_are_none,
          files_beside_an_older_manifest_are_looked_at,
          segments_of_a_collection_that_was_dropped_do_not_bring_it_back,
          a_part_of_an_impossible_kind_is_passed_over, two_collections_of_one_name_are_both_saved,
          much_of_everything_is_saved)
