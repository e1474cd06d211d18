/* test_segment_file.c: containers of sections: what is written comes back in both io modes, and
 * damage is told, wherever it is. */
#include "internals.h"

#include <errno.h>
#include <pthread.h>

#include "test.h"
#include "storage_fixture.h"

#define FILE_NUMBER 12
#define FILE_NAME   "seg-12"
#define ROWS        300
#define STRIDE      24
#define LINKS_M     4

static uint8_t section_byte(uint32_t part, enum section_type type, uint64_t at)
{
    return (uint8_t)(at * 13 + at / 256 + part * 77 + (uint32_t)type * 5);
}

static struct part_info part_of(uint32_t part)
{
    struct part_info info;
    memset(&info, 0, sizeof info);
    info.collection = 900 + part;
    info.target_file = 11;
    info.target_part = part + 3;
    info.flags = SEGMENT_IDS_ASCEND;
    info.rows = ROWS;
    info.indexed_rows = ROWS - 1;
    info.upper_count = 7;
    info.entry_row = 5;
    info.entry_level = 2;
    info.M = LINKS_M;
    info.vector_stride = STRIDE;
    info.dim = 6;
    info.scalar = OMENDB_F32;
    info.metric = OMENDB_COSINE;
    info.smallest_id = 17;
    info.largest_id = UINT64_MAX - 1;
    info.reference_recall = 0.5f + (float)part;
    info.reference_rows = 100;
    return info;
}

static const struct test_section {
    enum section_type type;
    size_t length;
} test_sections[] = {{SECTION_IDS, ROWS * 8},
                     {SECTION_VECTORS, ROWS *STRIDE},
                     {SECTION_UPPER_LINKS, 7 * LINKS_M * 4},
                     {SECTION_LEVELS, ROWS + 1}};
#define TEST_SECTIONS (sizeof test_sections / sizeof test_sections[0])

struct built {
    uint64_t size;
    uint32_t crc;
};

static int write_section(struct segment_writer *writer, uint32_t part, enum section_type type,
                         size_t length)
{
    uint8_t *bytes = malloc(length + 1);
    for (size_t i = 0; i < length; i++)
        bytes[i] = section_byte(part, type, i);
    int code = segment_writer_begin_section(writer, type);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, bytes, length / 3);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, bytes + length / 3, length - length / 3);
    free(bytes);
    return code;
}

static int write_part(struct segment_writer *writer, uint32_t part, size_t extra_blocks)
{
    const struct part_info info = part_of(part);
    int code = segment_writer_begin_part(writer);
    for (size_t i = 0; i < TEST_SECTIONS && code == OMENDB_OK; i++)
        code = write_section(writer, part, test_sections[i].type, test_sections[i].length);
    if (code == OMENDB_OK && extra_blocks > 0)
        code = write_section(writer, part, SECTION_ID_FILTER, extra_blocks * BLOCK_BYTES);
    return code == OMENDB_OK ? segment_writer_end_part(writer, &info) : code;
}

/* Two parts, one of them with so many blocks more. On failure everything is given back. */
static int build(uint64_t number, size_t extra_blocks, uint64_t expected, struct built *built)
{
    struct segment_writer *writer;
    int code = segment_writer_create(&fixture.storage, STORAGE_SEGMENT, number, expected, &writer);
    if (code == OMENDB_OK)
        code = write_part(writer, 0, extra_blocks);
    if (code == OMENDB_OK)
        code = write_part(writer, 1, 0);
    if (code == OMENDB_OK)
        code = segment_writer_finish(writer, &built->size, &built->crc);
    segment_writer_destroy(writer);
    return code;
}

static int open_built(const struct built *built, struct segment_file **file)
{
    return segment_file_open(&fixture.storage, STORAGE_SEGMENT, FILE_NUMBER, built->size,
                             built->crc, file);
}

static const uint8_t *expected_section(uint32_t part, enum section_type type, uint64_t length)
{
    static uint8_t expected[2][SECTION_TOMBSTONES + 1][130 * BLOCK_BYTES];
    uint8_t *bytes = expected[part][type];
    if (bytes[1] == 0) { /* not made yet: no section has 0 there */
        for (uint64_t i = 0; i < length; i++)
            bytes[i] = section_byte(part, type, i);
    }
    return bytes;
}

/* Touches and compares a section. *wrong: it was given although it is not what was written. */
static int read_section(struct segment_file *file, uint32_t part, enum section_type type,
                        uint64_t length, int *wrong)
{
    const struct section_range range = segment_section(file, part, type);
    *wrong = range.length != length || range.offset % 64 != 0;
    const int code = blocks_touch(&file->blocks, range.offset, range.length);
    if (code == OMENDB_OK && !*wrong)
        *wrong = memcmp(file->blocks.base + range.offset, expected_section(part, type, length),
                        length) != 0;
    return code;
}

/* All sections of both parts; returns the number that could not be had. */
static int read_all(struct segment_file *file, int *wrong)
{
    int errors = 0, one_wrong;
    *wrong = 0;
    for (uint32_t part = 0; part < 2; part++) {
        for (size_t i = 0; i < TEST_SECTIONS; i++) {
            const int code = read_section(file, part, test_sections[i].type,
                                          test_sections[i].length, &one_wrong);
            errors += code != OMENDB_OK;
            *wrong |= one_wrong || (code != OMENDB_OK && code != OMENDB_CORRUPT);
        }
    }
    return errors;
}

/* ---------------------------------------------------------------------------------------------------
 * writing and reading */

static void give_back(uint32_t io)
{
    struct built built;
    struct segment_file *file;
    int wrong;
    fixture_begin(io);
    CHECK_EQ_INT(build(FILE_NUMBER, 130, 5 << 20, &built), OMENDB_OK);
    CHECK_EQ_INT(fixture_file_size(FILE_NAME), built.size);
    CHECK_EQ_INT(open_built(&built, &file), OMENDB_OK);
    CHECK_EQ_INT(file->part_count, 2);
    for (uint32_t part = 0; part < 2; part++) {
        const struct part_info info = part_of(part);
        CHECK(memcmp(&info, &file->parts[part], sizeof info) == 0);
        CHECK_EQ_INT(segment_section(file, part, SECTION_LINKS).length, 0);
    }
    CHECK_EQ_INT(read_all(file, &wrong), 0);
    CHECK(!wrong);
    CHECK_EQ_INT(read_section(file, 0, SECTION_ID_FILTER, 130 * BLOCK_BYTES, &wrong), OMENDB_OK);
    CHECK(!wrong);
    CHECK_EQ_INT(blocks_touch(&file->blocks, 0, file->blocks.size), OMENDB_OK);
    CHECK_EQ_INT(file->blocks.unverified, 0);
    CHECK_EQ_INT(fixture.storage.mapped_bytes, io == OMENDB_IO_MAP ? file->blocks.size : 0);
    segment_file_close(file);
    fixture_end();
}

TEST(segment_gives_back_its_sections_when_mapped)
{
    give_back(OMENDB_IO_MAP);
}

TEST(segment_gives_back_its_sections_when_read)
{
    give_back(OMENDB_IO_PREAD);
}

static int cannot_map(void *context, void *file, uint64_t size, const void **address)
{
    (void)context;
    (void)file;
    (void)size;
    (void)address;
    return OMENDB_UNSUPPORTED;
}

TEST(segment_is_read_where_mapping_is_not_supported)
{
    struct built built;
    struct segment_file *file;
    int wrong;
    for (int null = 0; null < 2; null++) {
        fixture_begin(OMENDB_IO_MAP);
        fixture.vfs.map = null ? NULL : cannot_map;
        CHECK_EQ_INT(build(FILE_NUMBER, 3, 0, &built), OMENDB_OK);
        CHECK_EQ_INT(open_built(&built, &file), OMENDB_OK);
        CHECK_EQ_INT(fixture.storage.mapped_bytes, 0);
        CHECK_EQ_INT(read_all(file, &wrong), 0);
        CHECK(!wrong);
        segment_file_close(file);
        fixture_end();
    }
}

TEST(segment_opening_reads_no_data)
{
    struct built built;
    struct segment_file *file;
    for (uint32_t io = OMENDB_IO_MAP; io <= OMENDB_IO_PREAD; io++) {
        fixture_begin(io);
        CHECK_EQ_INT(build(FILE_NUMBER, 500, 0, &built), OMENDB_OK);
        fixture.bytes_read = 0;
        CHECK_EQ_INT(open_built(&built, &file), OMENDB_OK);
        CHECK(fixture.bytes_read < 4096);
        segment_file_close(file);
        fixture_end();
    }
}

/* The second part begins in the middle of a block that the view has seen already. */
static void view_in_the_middle(uint32_t io)
{
    struct segment_writer *writer;
    struct segment_file *file;
    struct block_file *view;
    struct built built;
    uint64_t offset;
    int wrong;
    fixture_begin(io);
    CHECK_EQ_INT(
        segment_writer_create(&fixture.storage, STORAGE_SEGMENT, FILE_NUMBER, 1 << 20, &writer),
        OMENDB_OK);
    for (uint32_t part = 0; part < 2; part++) {
        const struct part_info info = part_of(part);
        CHECK_EQ_INT(segment_writer_begin_part(writer), OMENDB_OK);
        for (size_t i = 0; i < TEST_SECTIONS; i++) {
            const enum section_type type = test_sections[i].type;
            CHECK_EQ_INT(write_section(writer, part, type, test_sections[i].length), OMENDB_OK);
            CHECK_EQ_INT(segment_writer_flush(writer, type, &view, &offset), OMENDB_OK);
            CHECK_EQ_INT(blocks_touch(view, offset, test_sections[i].length), OMENDB_OK);
            for (size_t at = 0; at < test_sections[i].length; at++)
                CHECK(view->base[offset + at] == section_byte(part, type, at));
            segment_flush_close(writer, view);
        }
        CHECK_EQ_INT(segment_writer_end_part(writer, &info), OMENDB_OK);
    }
    CHECK_EQ_INT(segment_writer_parts(writer), 2);
    CHECK_EQ_INT(segment_writer_finish(writer, &built.size, &built.crc), OMENDB_OK);
    segment_writer_destroy(writer);
    CHECK_EQ_INT(open_built(&built, &file), OMENDB_OK);
    CHECK_EQ_INT(read_all(file, &wrong), 0);
    CHECK(!wrong);
    segment_file_close(file);
    fixture_end();
}

TEST(segment_being_written_can_be_viewed)
{
    view_in_the_middle(OMENDB_IO_MAP);
    view_in_the_middle(OMENDB_IO_PREAD);
}

TEST(segment_overlay_is_another_kind)
{
    struct segment_writer *writer;
    struct segment_file *file;
    struct built built;
    const uint32_t rows[3] = {4, 8, 15};
    const struct part_info info = {.collection = 9, .target_file = 12, .target_part = 1, .rows = 3};
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(segment_writer_create(&fixture.storage, STORAGE_OVERLAY, 13, 0, &writer),
                 OMENDB_OK);
    CHECK_EQ_INT(segment_writer_begin_part(writer), OMENDB_OK);
    CHECK_EQ_INT(segment_writer_begin_section(writer, SECTION_TOMBSTONES), OMENDB_OK);
    CHECK_EQ_INT(segment_writer_append(writer, rows, sizeof rows), OMENDB_OK);
    CHECK_EQ_INT(segment_writer_end_part(writer, &info), OMENDB_OK);
    CHECK_EQ_INT(segment_writer_finish(writer, &built.size, &built.crc), OMENDB_OK);
    segment_writer_destroy(writer);
    CHECK_EQ_INT(
        segment_file_open(&fixture.storage, STORAGE_OVERLAY, 13, built.size, built.crc, &file),
        OMENDB_OK);
    const struct section_range range = segment_section(file, 0, SECTION_TOMBSTONES);
    CHECK_EQ_INT(blocks_touch(&file->blocks, range.offset, range.length), OMENDB_OK);
    CHECK(range.length == sizeof rows &&
          memcmp(file->blocks.base + range.offset, rows, sizeof rows) == 0);
    segment_file_close(file);
    fixture.inner.rename(fixture.inner.context, fixture.storage.directory, "ovl-13", "seg-13");
    CHECK_EQ_INT(
        segment_file_open(&fixture.storage, STORAGE_SEGMENT, 13, built.size, built.crc, &file),
        OMENDB_CORRUPT);
    CHECK(file == NULL);
    fixture_end();
}

/* ---------------------------------------------------------------------------------------------------
 * damage */

static void flip_each_byte(uint32_t io)
{
    struct built built;
    struct segment_file *file;
    int wrong;
    fixture_begin(io);
    CHECK_EQ_INT(build(FILE_NUMBER, 0, 0, &built), OMENDB_OK);
    for (uint64_t offset = 0; offset < built.size; offset++) {
        fixture_flip(FILE_NAME, offset, (uint8_t)(1u << offset % 8));
        const int code = open_built(&built, &file);
        CHECK(code == OMENDB_OK || code == OMENDB_CORRUPT || code == OMENDB_FORMAT);
        if (code == OMENDB_OK) {
            const int errors = read_all(file, &wrong);
            CHECK(!wrong);
            CHECK(offset >= 64 && offset < file->blocks.size);
            /* What is damaged is told, if not by a section then by reading everything. */
            CHECK(errors > 0 ||
                  blocks_touch(&file->blocks, 0, file->blocks.size) == OMENDB_CORRUPT);
            CHECK(file->blocks.unverified > 0);
            segment_file_close(file);
        }
        CHECK_EQ_INT(fixture_held(), 0);
        fixture_flip(FILE_NAME, offset, (uint8_t)(1u << offset % 8));
    }
    fixture_end();
}

TEST(segment_flip_of_any_byte_is_told_when_mapped)
{
    flip_each_byte(OMENDB_IO_MAP);
}

TEST(segment_flip_of_any_byte_is_told_when_read)
{
    flip_each_byte(OMENDB_IO_PREAD);
}

TEST(segment_cut_at_any_length_is_refused)
{
    struct built built, shorter;
    struct segment_file *file;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(build(FILE_NUMBER, 0, 0, &built), OMENDB_OK);
    shorter = built;
    while (shorter.size-- > 0) {
        fixture_file_truncate(FILE_NAME, shorter.size);
        CHECK_EQ_INT(open_built(&built, &file), OMENDB_CORRUPT);
        CHECK_EQ_INT(open_built(&shorter, &file),
                     OMENDB_CORRUPT); /* although the manifest says so */
        CHECK(file == NULL && fixture_held() == 0);
    }
    fixture_end();
}

TEST(segment_longer_than_expected_is_refused)
{
    struct built built;
    struct segment_file *file;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(build(FILE_NUMBER, 0, 0, &built), OMENDB_OK);
    fixture_file_write(FILE_NAME, built.size, "x", 1);
    CHECK_EQ_INT(open_built(&built, &file), OMENDB_CORRUPT);
    fixture_end();
}

TEST(segment_blocks_that_changed_places_are_caught)
{
    static uint8_t one[BLOCK_BYTES], two[BLOCK_BYTES];
    struct built built;
    struct segment_file *file;
    for (uint32_t io = OMENDB_IO_MAP; io <= OMENDB_IO_PREAD; io++) {
        fixture_begin(io);
        CHECK_EQ_INT(build(FILE_NUMBER, 6, 0, &built), OMENDB_OK);
        fixture_file_read(FILE_NAME, 3 * BLOCK_BYTES, one, sizeof one);
        fixture_file_read(FILE_NAME, 4 * BLOCK_BYTES, two, sizeof two);
        fixture_file_write(FILE_NAME, 3 * BLOCK_BYTES, two, sizeof two);
        fixture_file_write(FILE_NAME, 4 * BLOCK_BYTES, one, sizeof one);
        CHECK_EQ_INT(open_built(&built, &file), OMENDB_OK);
        CHECK_EQ_INT(blocks_touch(&file->blocks, 3 * BLOCK_BYTES, 1), OMENDB_CORRUPT);
        CHECK(strstr(error_text(), "seg-12: block 3 (offset 49152): checksum ") != NULL);
        CHECK_EQ_INT(blocks_touch(&file->blocks, 4 * BLOCK_BYTES, 1), OMENDB_CORRUPT);
        CHECK_EQ_INT(blocks_touch(&file->blocks, 2 * BLOCK_BYTES, BLOCK_BYTES), OMENDB_OK);
        CHECK_EQ_INT(blocks_touch(&file->blocks, 2 * BLOCK_BYTES, BLOCK_BYTES + 1), OMENDB_CORRUPT);
        segment_file_close(file);
        fixture_end();
    }
}

/* Equal blocks of one file have different checksums, and so have equal blocks of two files. */
TEST(segment_checksums_are_bound_to_file_and_block)
{
    static const uint8_t data[BLOCK_BYTES];
    CHECK(blocks_checksum(1, 1, data) != blocks_checksum(1, 2, data));
    CHECK(blocks_checksum(1, 1, data) != blocks_checksum(2, 1, data));
}

TEST(segment_of_another_number_is_refused)
{
    struct built built, other;
    struct segment_file *file;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(build(FILE_NUMBER, 0, 0, &built), OMENDB_OK);
    CHECK_EQ_INT(build(FILE_NUMBER + 1, 0, 0, &other), OMENDB_OK);
    CHECK(built.crc != other.crc && built.size == other.size);
    CHECK_EQ_INT(segment_file_open(&fixture.storage, STORAGE_SEGMENT, FILE_NUMBER, built.size,
                                   built.crc ^ 1, &file),
                 OMENDB_CORRUPT);
    fixture.inner.rename(fixture.inner.context, fixture.storage.directory, "seg-13", FILE_NAME);
    CHECK_EQ_INT(open_built(&built, &file), OMENDB_CORRUPT);
    CHECK_EQ_INT(open_built(&other, &file), OMENDB_CORRUPT);
    CHECK_EQ_INT(
        segment_file_open(&fixture.storage, STORAGE_SEGMENT, 99, built.size, built.crc, &file),
        OMENDB_CORRUPT); /* a manifest names it, so it is missing */
    fixture_end();
}

TEST(segment_touch_outside_the_data_is_refused)
{
    struct built built;
    struct segment_file *file;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(build(FILE_NUMBER, 0, 0, &built), OMENDB_OK);
    CHECK_EQ_INT(open_built(&built, &file), OMENDB_OK);
    CHECK_EQ_INT(blocks_touch(&file->blocks, file->blocks.size, 1), OMENDB_CORRUPT);
    CHECK_EQ_INT(blocks_touch(&file->blocks, 0, file->blocks.size + 1), OMENDB_CORRUPT);
    CHECK_EQ_INT(blocks_touch(&file->blocks, UINT64_MAX, 2), OMENDB_CORRUPT);
    CHECK_EQ_INT(blocks_touch(&file->blocks, 0, 0), OMENDB_OK);
    CHECK_EQ_INT(blocks_touch(&file->blocks, file->blocks.size, 0), OMENDB_OK);
    segment_file_close(file);
    fixture_end();
}

static int reports;
static void count_reports(void *context, uint64_t block, const char *sentence)
{
    char number[32];
    (void)context;
    snprintf(number, sizeof number, "block %llu ", (unsigned long long)block);
    reports += strstr(sentence, FILE_NAME) != NULL && strstr(sentence, number) != NULL;
}

TEST(segment_check_names_every_bad_block)
{
    struct built built;
    struct segment_file *file;
    for (uint32_t io = OMENDB_IO_MAP; io <= OMENDB_IO_PREAD; io++) {
        fixture_begin(io);
        CHECK_EQ_INT(build(FILE_NUMBER, 6, 0, &built), OMENDB_OK);
        if (io == OMENDB_IO_MAP)
            fixture_flip(FILE_NAME, 70, 1);
        CHECK_EQ_INT(open_built(&built, &file), OMENDB_OK);
        reports = 0;
        CHECK_EQ_INT(segment_file_check(file, count_reports, NULL), OMENDB_OK);
        CHECK_EQ_INT(reports, io == OMENDB_IO_MAP);
        if (io == OMENDB_IO_PREAD) { /* damage after a block was verified is seen too: the file is
                                        read again */
            CHECK_EQ_INT(blocks_touch(&file->blocks, 0, file->blocks.size), OMENDB_OK);
            fixture_flip(FILE_NAME, 70, 1);
            fixture_flip(FILE_NAME, 5 * BLOCK_BYTES, 1);
            CHECK_EQ_INT(segment_file_check(file, count_reports, NULL), OMENDB_OK);
            CHECK_EQ_INT(reports, 2);
            fixture_fail(FIXTURE_READ, 0, 1, OMENDB_IOERR); /* no damage, but no answer either */
            CHECK_EQ_INT(segment_file_check(file, count_reports, NULL), OMENDB_IOERR);
            CHECK_EQ_INT(reports, 2);
            fixture_heal();
        }
        segment_file_close(file);
        fixture_end();
    }
}

/* Signs the footer anew, so that only the bounds stand between its numbers and memory. */
static struct built sign_footer(uint8_t *bytes, const struct built *built)
{
    struct built changed = *built;
    const uint64_t length = built->size - built->size / BLOCK_BYTES * BLOCK_BYTES;
    changed.crc =
        segment_footer_checksum(FILE_NUMBER, bytes + built->size - length, (size_t)length);
    format_put32(bytes + built->size - 4, changed.crc);
    fixture_file_make(FILE_NAME, bytes, (size_t)built->size);
    return changed;
}

/* Everything that an opened file shows lies inside it and can be touched, or the touch says that it
 * is bad. */
static uint8_t touched_bytes;
static void touch_everything(struct segment_file *file)
{
    for (uint32_t part = 0; part < file->part_count; part++) {
        const struct part_info *info = &file->parts[part];
        for (int type = 1; type <= SECTION_TOMBSTONES; type++) {
            const struct section_range range = segment_section(file, part, (enum section_type)type);
            if (range.length == 0)
                continue;
            CHECK(range.offset >= 64 && range.offset < file->blocks.size &&
                  range.length <= file->blocks.size - range.offset);
            CHECK(type != SECTION_VECTORS ||
                  range.length >= (uint64_t)info->rows * info->vector_stride);
            if (blocks_touch(&file->blocks, range.offset, range.length) == OMENDB_OK)
                touched_bytes ^= (uint8_t)(file->blocks.base[range.offset] ^
                                           file->blocks.base[range.offset + range.length - 1]);
        }
    }
}

TEST(segment_footers_mutated_and_signed_stay_in_bounds)
{
    struct built built;
    struct segment_file *file;
    uint64_t state = 1;
    int opened = 0, refused = 0;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(build(FILE_NUMBER, 0, 0, &built), OMENDB_OK);
    uint8_t *bytes = malloc((size_t)built.size), *mutated = malloc((size_t)built.size);
    fixture_file_read(FILE_NAME, 0, bytes, (size_t)built.size);
    const size_t footer = (size_t)(built.size / BLOCK_BYTES * BLOCK_BYTES),
                 length = (size_t)built.size - footer;
    for (int round = 0; round < 6000; round++) {
        memcpy(mutated, bytes, (size_t)built.size);
        for (uint64_t i = fixture_random(&state) % 3; i < 3; i++) {
            static const uint64_t values[] = {
                0, 1, 2, 63, 64, 16384, UINT32_MAX, UINT64_MAX, UINT64_MAX - 63, INT64_MAX};
            const size_t at = footer + (fixture_random(&state) % (length - 8)) / 4 * 4;
            format_put32(mutated + at, (uint32_t)values[fixture_random(&state) % 10]);
            if (fixture_random(&state) % 2)
                format_put64(mutated + at, values[fixture_random(&state) % 10]);
        }
        const struct built changed = sign_footer(mutated, &built);
        const int code = open_built(&changed, &file);
        CHECK(code == OMENDB_OK || code == OMENDB_CORRUPT);
        if (code == OMENDB_OK)
            touch_everything(file);
        opened += code == OMENDB_OK;
        refused += code != OMENDB_OK;
        segment_file_close(file);
        if (test_failures > 0)
            return;
    }
    CHECK(opened > 100 && refused > 100);
    free(bytes);
    free(mutated);
    fixture_end();
}

/* One field of the footer each; the first section begins behind two parts. */
TEST(segment_footer_that_lies_is_refused)
{
    static const struct {
        uint64_t at; /* in the footer */
        uint32_t value;
    } lies[] = {{FORMAT_PART_ROWS, ROWS + 1},
                {FORMAT_PART_ROWS, UINT32_MAX},
                {FORMAT_PART_INDEXED_ROWS, ROWS + 1},
                {FORMAT_PART_M, LINKS_M + 1},
                {FORMAT_PART_M, UINT32_MAX},
                {FORMAT_PART_VECTOR_STRIDE, STRIDE + 1},
                {192 + FORMAT_SECTION_PART, 2},
                {192 + FORMAT_SECTION_PART, 1},
                {192 + FORMAT_SECTION_TYPE, 0},
                {192 + FORMAT_SECTION_TYPE, 11},
                {192 + FORMAT_SECTION_TYPE, 1},
                {192 + FORMAT_SECTION_OFFSET, 0},
                {192 + FORMAT_SECTION_OFFSET, 65},
                {192 + FORMAT_SECTION_OFFSET, 128},
                {192 + FORMAT_SECTION_OFFSET + 4, 1},
                {192 + FORMAT_SECTION_LENGTH, 0},
                {192 + FORMAT_SECTION_LENGTH, 1 << 20},
                {192 + FORMAT_SECTION_LENGTH + 4, UINT32_MAX}};
    struct built built;
    struct segment_file *file;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(build(FILE_NUMBER, 0, 0, &built), OMENDB_OK);
    uint8_t *bytes = malloc((size_t)built.size);
    fixture_file_read(FILE_NAME, 0, bytes, (size_t)built.size);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        uint8_t *at = bytes + built.size / BLOCK_BYTES * BLOCK_BYTES + lies[i].at;
        const uint32_t truth = format_get32(at);
        format_put32(at, lies[i].value);
        const struct built changed = sign_footer(bytes, &built);
        CHECK_EQ_INT(open_built(&changed, &file), OMENDB_CORRUPT);
        CHECK(file == NULL && strstr(error_text(), "footer") != NULL);
        format_put32(at, truth);
    }
    const struct built again = sign_footer(bytes, &built);
    CHECK_EQ_INT(open_built(&again, &file), OMENDB_OK);
    segment_file_close(file);
    free(bytes);
    fixture_end();
}

/* ---------------------------------------------------------------------------------------------------
 * failures and threads */

/* Writes another trailer behind the back of whoever reads the footer after the trailer: one that
 * makes sense, but says that the footer begins six blocks earlier. */
static const struct built *changing;
static int change_while_read(void *context, void *file, uint64_t offset, void *buffer, size_t size)
{
    int code = fixture_read(context, file, offset, buffer, size);
    uint8_t *trailer = (uint8_t *)buffer + size - FORMAT_TRAILER_BYTES;
    if (code != OMENDB_OK || offset + size != changing->size || size <= FORMAT_TRAILER_BYTES)
        return code;
    uint32_t sections = format_get32(trailer + FORMAT_TRAILER_SECTIONS);
    format_put64(trailer + FORMAT_TRAILER_LENGTH, size + 6 * BLOCK_BYTES);
    format_put32(trailer + FORMAT_TRAILER_SECTIONS,
                 sections + 6 * (uint32_t)(BLOCK_BYTES + 4) / FORMAT_SECTION_BYTES);
    return code;
}

TEST(segment_footer_that_grows_while_it_is_read_is_refused)
{
    struct built built;
    struct segment_file *file;
    fixture_begin(OMENDB_IO_PREAD);
    CHECK_EQ_INT(build(FILE_NUMBER, 8, 0, &built), OMENDB_OK);
    changing = &built;
    fixture.vfs.read = change_while_read;
    CHECK_EQ_INT(open_built(&built, &file), OMENDB_CORRUPT);
    CHECK(strstr(omendb_errmsg(), "changed while it was read") != NULL);
    CHECK(file == NULL);
    fixture_end();
}

TEST(segment_errors_stick)
{
    struct segment_writer *writer;
    const struct part_info info = part_of(0);
    struct built built;
    uint8_t *bytes = calloc(3, 1 << 20);
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(segment_writer_create(&fixture.storage, STORAGE_SEGMENT, FILE_NUMBER, 0, &writer),
                 OMENDB_OK);
    CHECK_EQ_INT(segment_writer_begin_part(writer), OMENDB_OK);
    CHECK_EQ_INT(segment_writer_begin_section(writer, SECTION_IDS), OMENDB_OK);
    fixture_fail(FIXTURE_WRITE, 1, 0, OMENDB_FULL);
    CHECK_EQ_INT(segment_writer_append(writer, bytes, 3 << 20), OMENDB_FULL);
    fixture_heal();
    error_set(OMENDB_BUSY, "something else");
    CHECK_EQ_INT(segment_writer_append(writer, bytes, 1), OMENDB_FULL);
    CHECK(strstr(error_text(), FILE_NAME) != NULL);
    CHECK_EQ_INT(segment_writer_begin_section(writer, SECTION_LEVELS), OMENDB_FULL);
    CHECK_EQ_INT(segment_writer_end_part(writer, &info), OMENDB_FULL);
    CHECK_EQ_INT(segment_writer_begin_part(writer), OMENDB_FULL);
    CHECK_EQ_INT(segment_writer_finish(writer, &built.size, &built.crc), OMENDB_FULL);
    CHECK(fixture_exists(FILE_NAME));
    segment_writer_destroy(writer);
    CHECK(!fixture_exists(FILE_NAME));
    free(bytes);
    fixture_end();
}

/* Every call of the vfs and every allocation of writing and opening. */
TEST(segment_survives_every_failing_call_and_allocation)
{
    for (uint32_t io = OMENDB_IO_MAP; io <= OMENDB_IO_PREAD; io++) {
        struct built built;
        struct segment_file *file;
        int code = OMENDB_NOMEM, after = 0, wrong;
        fixture_begin(io);
        for (; code != OMENDB_OK; after++) {
            fixture.allocations_left = after;
            code = build(FILE_NUMBER, 70, 0, &built);
            CHECK(code == OMENDB_OK || (code == OMENDB_NOMEM && !fixture_exists(FILE_NAME)));
            CHECK_EQ_INT(fixture_held(), 0);
        }
        CHECK(after > 4);
        for (code = OMENDB_NOMEM, after = 0; code != OMENDB_OK; after++) {
            fixture.allocations_left = after;
            code = open_built(&built, &file);
            CHECK(code == OMENDB_OK ||
                  (code == OMENDB_NOMEM && file == NULL && fixture_held() == 0));
        }
        CHECK(after > 4);
        segment_file_close(file);
        fixture_heal();
        for (after = 0;; after++) {
            fixture_fail(FIXTURE_ALL, after, 0, OMENDB_IOERR);
            code = open_built(&built, &file);
            if (fixture.calls <= after)
                break;
            CHECK(code == OMENDB_IOERR || (code == OMENDB_OK && file != NULL));
            segment_file_close(file);
            CHECK_EQ_INT(fixture_held(), 0);
        }
        fixture_fail(FIXTURE_READ, 0, 0, OMENDB_IOERR);
        if (io == OMENDB_IO_PREAD) /* an error of the device is no damage, and the next touch tries
                                      again */
            CHECK_EQ_INT(blocks_touch(&file->blocks, 0, file->blocks.size), OMENDB_IOERR);
        fixture_heal();
        CHECK_EQ_INT(read_all(file, &wrong), 0);
        CHECK(!wrong);
        segment_file_close(file);
        fixture.inner.unlink(fixture.inner.context, fixture.storage.directory, FILE_NAME);
        for (after = 0;; after++) {
            fixture_fail(FIXTURE_ALL & ~(unsigned)(FIXTURE_UNLINK | FIXTURE_ALLOCATE), after, 0,
                         OMENDB_IOERR);
            code = build(FILE_NUMBER, 70, 1 << 20, &built);
            CHECK_EQ_INT(fixture_held(), 0);
            if (fixture.calls <= after)
                break;
            const int calls = fixture.calls;
            fixture_heal();
            CHECK(code == OMENDB_IOERR);
            CHECK(!fixture_exists(FILE_NAME) ||
                  calls > 5); /* a failing last close leaves it for the engine's collection */
            fixture.inner.unlink(fixture.inner.context, fixture.storage.directory, FILE_NAME);
        }
        CHECK_EQ_INT(code, OMENDB_OK);
        fixture_end();
    }
}

struct toucher {
    pthread_t thread;
    pthread_barrier_t *start; /* NULL: each at places of its own */
    struct segment_file *file;
    uint64_t seed;
    int wrong;
};

static void *touch_at_random(void *argument)
{
    struct toucher *toucher = argument;
    const struct section_range range = segment_section(toucher->file, 0, SECTION_ID_FILTER);
    if (toucher->start != NULL)
        pthread_barrier_wait(toucher->start);
    for (int i = 0; i < 2000 && toucher->start == NULL; i++) {
        const uint64_t at = fixture_random(&toucher->seed) % range.length;
        uint64_t length = fixture_random(&toucher->seed) % (3 * BLOCK_BYTES) + 1;
        length = length < range.length - at ? length : range.length - at;
        toucher->wrong |=
            blocks_touch(&toucher->file->blocks, range.offset + at, length) != OMENDB_OK;
        toucher->wrong |=
            toucher->file->blocks.base[range.offset + at] != section_byte(0, SECTION_ID_FILTER, at);
        toucher->wrong |= toucher->file->blocks.base[range.offset + at + length - 1] !=
                          section_byte(0, SECTION_ID_FILTER, at + length - 1);
    }
    toucher->wrong |=
        blocks_touch(&toucher->file->blocks, 0, toucher->file->blocks.size) != OMENDB_OK;
    return NULL;
}

/* Two threads may both find a block unverified and both verify it; one of them counts. */
TEST(segment_blocks_are_counted_once_by_many_threads)
{
    struct built built;
    pthread_barrier_t start;
    CHECK(pthread_barrier_init(&start, NULL, 4) == 0);
    for (int round = 0; round < 20; round++) {
        struct toucher touchers[4];
        struct segment_file *file;
        fixture_begin(round % 2 == 0 ? OMENDB_IO_MAP : OMENDB_IO_PREAD);
        CHECK_EQ_INT(build(FILE_NUMBER, 200, 0, &built), OMENDB_OK);
        CHECK_EQ_INT(open_built(&built, &file), OMENDB_OK);
        for (size_t i = 0; i < 4; i++) {
            touchers[i].file = file;
            touchers[i].seed = (uint64_t)round * 4 + i;
            touchers[i].start = round % 4 < 2 ? &start : NULL;
            touchers[i].wrong = 0;
            CHECK(pthread_create(&touchers[i].thread, NULL, touch_at_random, &touchers[i]) == 0);
        }
        for (size_t i = 0; i < 4; i++)
            pthread_join(touchers[i].thread, NULL);
        for (size_t i = 0; i < 4; i++)
            CHECK(!touchers[i].wrong);
        CHECK_EQ_INT(file->blocks.unverified, 0);
        segment_file_close(file);
        fixture_end();
    }
    pthread_barrier_destroy(&start);
}

/* Made by hand from the text of format.h. */
TEST(segment_bytes_are_as_documented)
{
    struct built built;
    uint8_t header[64], trailer[32], section[24];
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(build(FILE_NUMBER, 0, 0, &built), OMENDB_OK);
    CHECK_EQ_INT(built.size % BLOCK_BYTES, 2 * 96 + 8 * 24 + 2 * 4 + 32);
    fixture_file_read(FILE_NAME, 0, header, sizeof header);
    CHECK(memcmp(header, "OMENDBSG\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\14\0\0\0\0\0\0\0", 32) == 0);
    CHECK_EQ_INT(format_get32(header + 56), checksum_crc32c(0, header, 56));
    fixture_file_read(FILE_NAME, built.size - 32, trailer, sizeof trailer);
    CHECK(memcmp(trailer, "OMENDBFT", 8) == 0);
    CHECK_EQ_INT(format_get64(trailer + 8), built.size % BLOCK_BYTES);
    CHECK(memcmp(trailer + 16, "\2\0\0\0\10\0\0\0\0\0\0\0", 12) == 0);
    CHECK_EQ_INT(format_get32(trailer + 28), built.crc);
    fixture_file_read(FILE_NAME, built.size / BLOCK_BYTES * BLOCK_BYTES + 2 * 96, section,
                      sizeof section);
    CHECK(memcmp(section, "\0\0\0\0\6\0\0\0\100\0\0\0\0\0\0\0\140\11\0\0\0\0\0\0", 24) == 0);
    fixture_end();
}

TEST_MAIN(segment_gives_back_its_sections_when_mapped, segment_gives_back_its_sections_when_read,
          segment_is_read_where_mapping_is_not_supported, segment_opening_reads_no_data,
          segment_being_written_can_be_viewed, segment_overlay_is_another_kind,
          segment_flip_of_any_byte_is_told_when_mapped, segment_flip_of_any_byte_is_told_when_read,
          segment_cut_at_any_length_is_refused, segment_longer_than_expected_is_refused,
          segment_blocks_that_changed_places_are_caught,
          segment_checksums_are_bound_to_file_and_block, segment_of_another_number_is_refused,
          segment_touch_outside_the_data_is_refused, segment_check_names_every_bad_block,
          segment_footers_mutated_and_signed_stay_in_bounds, segment_footer_that_lies_is_refused,
          segment_footer_that_grows_while_it_is_read_is_refused, segment_errors_stick,
          segment_survives_every_failing_call_and_allocation,
          segment_blocks_are_counted_once_by_many_threads, segment_bytes_are_as_documented)
