/* test_salvage_updates.c: what salvage saves of records that were updated, where their overlay, or
 * what they were written with, is damaged.
 *
 * Each record has the key "key <id>" and a field n: its id, or once it was updated FRESH more. */
#include "internals.h"

#include "signing.h"
#include "support.h"
#include "test.h"

#define UPDATED_DIM  2
#define UPDATED_ROWS 12000
#define FRESH        100000

static omendb_salvage_result updated_result;

static void updated_options(struct crash_fs *fs, omendb_options *options)
{
    omendb_options_init(options);
    options->vfs = &fs->vfs;
    options->threads = 0;
    options->sync = OMENDB_SYNC_OFF;
}

static void updated_metadata(uint64_t n, char metadata[48])
{
    snprintf(metadata, 48, "{\"n\":%llu}", (unsigned long long)n);
}

static void updated_put(omendb_collection *docs, uint64_t id, const char *key)
{
    float vector[UPDATED_DIM];
    char metadata[48];
    omendb_record record = OMENDB_RECORD_INIT;
    support_vector(id, UPDATED_DIM, vector);
    updated_metadata(id, metadata);
    record.id = id;
    record.vector = vector;
    record.key = key;
    record.metadata = metadata;
    support_must(omendb_put(docs, NULL, &record, NULL));
}

static void updated_update(omendb_collection *docs, omendb_txn *txn, uint64_t id)
{
    char metadata[48];
    updated_metadata(id + FRESH, metadata);
    support_must(omendb_update(docs, txn, id, metadata));
}

static void updated_begin(struct crash_fs *fs, omendb **db, omendb_collection **docs)
{
    omendb_options options;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = UPDATED_DIM;
    schema.M = 2;
    schema.ef_construction = 8;
    updated_options(fs, &options);
    support_must(omendb_open("/db", &options, db));
    support_must(omendb_collection_create(*db, "docs", &schema, docs));
}

static void updated_fill(omendb *db, omendb_collection *docs, uint64_t first, uint64_t count)
{
    char key[32];
    for (uint64_t id = first; id < first + count; id++) {
        snprintf(key, sizeof key, "key %llu", (unsigned long long)id);
        updated_put(docs, id, key);
    }
    support_must(omendb_checkpoint(db));
}

/* One segment and its overlay: every `step`-th row from `first` on was updated, rows 5 and 7 were
 * deleted. */
static struct crash_fs *updated_disk(uint64_t first, uint64_t step)
{
    struct crash_fs *fs = crash_fs_create(0);
    omendb *db = NULL;
    omendb_collection *docs = NULL;
    updated_begin(fs, &db, &docs);
    updated_fill(db, docs, 0, UPDATED_ROWS);
    for (uint64_t id = first; id < UPDATED_ROWS; id += step)
        updated_update(docs, NULL, id);
    support_must(omendb_delete(docs, NULL, 5));
    support_must(omendb_delete(docs, NULL, 7));
    omendb_collection_close(docs);
    support_must(omendb_close(db));
    return fs;
}

static struct section_range updated_section(const struct crash_inode *file, uint32_t type)
{
    struct section_range range = {0, 0};
    const uint8_t *trailer = file->data + file->size - FORMAT_TRAILER_BYTES;
    const uint32_t sections = format_get32(trailer + FORMAT_TRAILER_SECTIONS);
    const uint8_t *at = file->data + file->size / BLOCK_BYTES * BLOCK_BYTES +
                        format_get32(trailer + FORMAT_TRAILER_PARTS) * FORMAT_PART_BYTES;
    for (uint32_t i = 0; i < sections; i++, at += FORMAT_SECTION_BYTES) {
        if (format_get32(at + FORMAT_SECTION_TYPE) == type) {
            range.offset = format_get64(at + FORMAT_SECTION_OFFSET);
            range.length = format_get64(at + FORMAT_SECTION_LENGTH);
        }
    }
    return range;
}

static struct crash_inode *updated_overlay(struct crash_fs *fs)
{
    return signed_file(fs, "ovl-", 0);
}

/* One byte of a section goes, and with it the block that it lies in. */
static void updated_damage(struct crash_inode *file, uint32_t type, uint64_t at)
{
    const struct section_range range = updated_section(file, type);
    support_must(at < range.length ? OMENDB_OK : OMENDB_NOTFOUND);
    file->data[range.offset + at] ^= 0x55;
}

static omendb *updated_salvage(struct crash_fs *fs, struct support_report *report)
{
    omendb_options options;
    omendb *db = NULL;
    updated_options(fs, &options);
    omendb_salvage_result_init(&updated_result);
    int status = omendb_salvage("/db", "/new", &options, support_note, report, &updated_result);
    if (status == OMENDB_OK)
        status = omendb_open("/new", &options, &db);
    if (status != OMENDB_OK)
        fprintf(stderr, "    %s: %s\n", omendb_strerror(status), omendb_errmsg());
    return db;
}

/* 0: the record has its key and n as it was put; 1: as it was updated; -1: it has neither; -2: it
 * is not there. */
static int updated_state(omendb_collection *docs, uint64_t id)
{
    char key[32], wanted[32], metadata[48], old[48], fresh[48];
    const int status = omendb_get_key(docs, NULL, id, key, sizeof key, NULL);
    if (status != OMENDB_OK)
        return -2;
    support_must(omendb_get_metadata(docs, NULL, id, NULL, 0, metadata, sizeof metadata, NULL));
    snprintf(wanted, sizeof wanted, "key %llu", (unsigned long long)id);
    updated_metadata(id, old);
    updated_metadata(id + FRESH, fresh);
    if (strcmp(key, wanted) != 0)
        return -1;
    return strcmp(metadata, fresh) == 0 ? 1 : strcmp(metadata, old) == 0 ? 0 : -1;
}

/* Of the disk, which is freed: how many records are as they were updated and as they were put. 1
 * where they are so many, all keys are there, and the sentence was told once. */
static int updated_saves(struct crash_fs *fs, const char *sentence, uint64_t fresh, uint64_t old)
{
    struct support_report report = {sentence, 0, 0};
    uint64_t counts[2] = {0, 0}, others = 0;
    omendb *db = updated_salvage(fs, &report);
    omendb_collection *docs = NULL;
    if (db == NULL)
        return 0;
    support_must(omendb_collection_open(db, "docs", NULL, &docs));
    for (uint64_t id = 0; id < UPDATED_ROWS; id++) {
        const int state = updated_state(docs, id);
        counts[state == 1] += state >= 0;
        others += state == -1;
    }
    omendb_collection_close(docs);
    support_must(omendb_close(db));
    crash_fs_destroy(fs);
    if (counts[1] == fresh && counts[0] == old && others == 0 &&
        (sentence == NULL || report.told == 1))
        return 1;
    fprintf(stderr, "    %llu fresh, %llu old, %llu others, told %llu times of %llu lines\n",
            (unsigned long long)counts[1], (unsigned long long)counts[0],
            (unsigned long long)others, (unsigned long long)report.told,
            (unsigned long long)report.lines);
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * blocks of overlays */

TEST(updates_of_an_undamaged_overlay_are_saved)
{
    CHECK(updated_saves(updated_disk(1000, 1), NULL, 11000, 998));
    CHECK_EQ_INT(updated_result.problems, 0);
}

/* 4,096 entries are lost, of so many rows between those beside them. */
TEST(updated_rows_that_follow_from_others_are_found_again)
{
    struct crash_fs *fs = updated_disk(1000, 1);
    updated_damage(updated_overlay(fs), SECTION_OVERLAY_ROWS, 20000);
    CHECK(updated_saves(fs, NULL, 11000, 998));
    CHECK_EQ_INT(updated_result.problems, 1);
}

/* The rows between the 4,096 that are lost were not updated. */
TEST(a_bad_block_of_updated_rows_costs_the_updates_in_it_and_no_others)
{
    struct crash_fs *fs = updated_disk(0, 2);
    const uint64_t lost = BLOCK_BYTES / 4;
    updated_damage(updated_overlay(fs), SECTION_OVERLAY_ROWS, 8000);
    CHECK(updated_saves(fs, "which of 8193 records of collection \"docs\" were updated is damaged",
                        6000 - lost, 5998 + lost));
    CHECK_EQ_INT(updated_result.problems, 2);
}

/* The first block has the deletions, and where the first documents end. */
TEST(a_bad_block_of_deletions_costs_no_updates_of_other_blocks)
{
    struct crash_fs *fs = updated_disk(0, 2);
    const uint64_t ends = updated_section(updated_overlay(fs), SECTION_DOCUMENT_ENDS).offset;
    const uint64_t lost = (BLOCK_BYTES - ends) / 8 + 1;
    updated_damage(updated_overlay(fs), SECTION_TOMBSTONES, 0);
    CHECK(updated_saves(fs, "deletions in seg-", 6000 - lost, 6000 + lost));
    CHECK_EQ_INT(updated_result.problems, 3);
    CHECK_EQ_INT(updated_result.doubtful, UPDATED_ROWS);
}

TEST(a_record_whose_updated_metadata_is_damaged_keeps_what_it_had_before)
{
    struct crash_fs *fs = updated_disk(1000, 1);
    const struct section_range all = updated_section(updated_overlay(fs), SECTION_DOCUMENTS);
    const uint64_t each = all.length / 11000;
    uint64_t begin = (all.offset + 200000) / BLOCK_BYTES * BLOCK_BYTES - all.offset;
    const uint64_t lost = (begin + BLOCK_BYTES - 1) / each - begin / each + 1;
    char sentence[80];
    CHECK_EQ_INT(all.length % 11000, 0);
    updated_damage(updated_overlay(fs), SECTION_DOCUMENTS, begin);
    snprintf(sentence, sizeof sentence, "of %llu records of collection \"docs\" the updated",
             (unsigned long long)lost);
    CHECK(updated_saves(fs, sentence, 11000 - lost, 998 + lost));
    CHECK_EQ_INT(updated_result.problems, 2);
}

TEST(without_an_overlay_records_are_as_they_were_before_and_that_is_told)
{
    struct crash_fs *fs = updated_disk(1000, 1);
    struct crash_inode *overlay = updated_overlay(fs);
    overlay->data[overlay->size - 20] ^= 0x55; /* its end */
    CHECK(updated_saves(fs, "and updated ones have the metadata that they had before", 0,
                        UPDATED_ROWS));
}

/* ------------------------------------------------------------------------------------------------
 * prepared transactions */

#define UPDATED_FEW 3000

/* Updates some records in a transaction that waits. */
static void updated_prepare(omendb *db, omendb_collection *docs, uint64_t first, uint64_t count,
                            uint64_t step)
{
    omendb_txn *txn = NULL;
    support_must(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn));
    for (uint64_t id = first; id < first + count; id += step)
        updated_update(docs, txn, id);
    support_must(omendb_txn_prepare(txn, "waits"));
}

/* Blocks of what the records were written with are damaged. */
TEST(a_waiting_update_of_a_record_that_was_saved_without_its_key_gives_it_back)
{
    struct crash_fs *fs = crash_fs_create(0);
    struct support_report report = {"they are saved without", 0, 0};
    omendb *db = NULL;
    omendb_collection *docs = NULL;
    int states[3] = {0, 0, 0};
    updated_begin(fs, &db, &docs);
    updated_fill(db, docs, 0, UPDATED_FEW);
    updated_prepare(db, docs, 0, UPDATED_FEW, 3);
    omendb_collection_close(docs);
    support_must(omendb_close(db));
    updated_damage(signed_file(fs, "seg-", 0), SECTION_DOCUMENTS, 50000);
    db = updated_salvage(fs, &report);
    CHECK(db != NULL);
    CHECK_EQ_INT(report.told, 1);
    CHECK_EQ_INT(updated_result.problems, 2);
    CHECK_EQ_INT(omendb_collection_open(db, "docs", NULL, &docs), OMENDB_OK);
    for (uint64_t id = 0; id < UPDATED_FEW; id++)
        states[updated_state(docs, id) + 1]++;
    CHECK(states[0] > 200 && states[1] == UPDATED_FEW - states[0]);
    CHECK_EQ_INT(omendb_commit_prepared(db, "waits"), OMENDB_OK);
    for (uint64_t id = 0; id < UPDATED_FEW; id += 3)
        CHECK_EQ_INT(updated_state(docs, id), 1);
    omendb_collection_close(docs);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(fs);
}

/* Record 3 was deleted, and 12 got its key; then the deletion is lost, and the key of 12 is. */
TEST(a_waiting_update_with_a_key_that_another_record_has_is_left_out_and_told)
{
    struct crash_fs *fs = crash_fs_create(0);
    struct support_report report = {"the update of record 12 of collection \"docs\" by the "
                                    "prepared transaction \"waits\" is lost",
                                    0, 0};
    omendb *db = NULL;
    omendb_collection *docs = NULL;
    updated_begin(fs, &db, &docs);
    updated_fill(db, docs, 0, 10);
    CHECK_EQ_INT(omendb_delete(docs, NULL, 3), OMENDB_OK);
    updated_put(docs, 12, "key 3");
    updated_fill(db, docs, 13, 10);
    updated_prepare(db, docs, 12, 2, 1);
    omendb_collection_close(docs);
    support_must(omendb_close(db));
    struct crash_inode *segment = signed_file(fs, "seg-", 0), *overlay = updated_overlay(fs);
    memset(segment->data + updated_section(segment, SECTION_DOCUMENTS).offset, 0xff, 8);
    signed_segment(fs, segment, format_get64(segment->data + FORMAT_SEGMENT_NUMBER));
    overlay->data[overlay->size - 20] ^= 0x55;
    db = updated_salvage(fs, &report);
    CHECK(db != NULL);
    CHECK_EQ_INT(report.told, 1);
    CHECK_EQ_INT(omendb_commit_prepared(db, "waits"), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(db, "docs", NULL, &docs), OMENDB_OK);
    CHECK_EQ_INT(updated_state(docs, 3), 0);
    CHECK_EQ_INT(updated_state(docs, 12), -1);
    CHECK_EQ_INT(updated_state(docs, 13), 1);
    omendb_collection_close(docs);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(fs);
}

TEST_MAIN(updates_of_an_undamaged_overlay_are_saved,
          updated_rows_that_follow_from_others_are_found_again,
          a_bad_block_of_updated_rows_costs_the_updates_in_it_and_no_others,
          a_bad_block_of_deletions_costs_no_updates_of_other_blocks,
          a_record_whose_updated_metadata_is_damaged_keeps_what_it_had_before,
          without_an_overlay_records_are_as_they_were_before_and_that_is_told,
          a_waiting_update_of_a_record_that_was_saved_without_its_key_gives_it_back,
          a_waiting_update_with_a_key_that_another_record_has_is_left_out_and_told)
