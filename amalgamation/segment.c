/* segment.c: writing and opening the containers of sections. format.h has the bytes.
 *
 * Invariant of the writer: bytes [0, written) are in the file, [block_start, size) are in the
 * buffer, and the checksums of all blocks below block_start are known; block_start is a multiple of
 * a block and at most `written`. So a flush in the middle of a block writes its first part early,
 * keeps it in the buffer, and later writes only the rest. The first error sticks: a file with a
 * hole never gets a footer.
 *
 * Invariant of an opened file: every part and section that it shows was bounded against the data,
 * sections are aligned, ascending and do not overlap, and a section has at least the bytes that its
 * part's numbers of rows and links ask for. Values inside sections (links, ids, rows) are bounded
 * where they are used.
 *
 * Rejected: a footer at the front (its size is known only at the end), and sections written in
 * parallel (one stream keeps checksums and allocation simple; the device is the limit). */
#include "segment.h"

#include "checksum.h"
#include "error.h"
#include "codes.h"
#include "format.h"
#include "memory.h"
#include "scalar.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SEGMENT_BUFFER_BYTES ((size_t)1 << 20)

_Static_assert(((size_t)1 << 20) % BLOCK_BYTES == 0, "the buffer holds whole blocks");

static const char *segment_magic(enum storage_kind kind)
{
    return kind == STORAGE_OVERLAY ? FORMAT_MAGIC_OVERLAY : FORMAT_MAGIC_SEGMENT;
}

OMENDB_INTERNAL uint32_t segment_footer_checksum(uint64_t number, const uint8_t *footer,
                                                 size_t length)
{
    uint8_t place[8];
    format_put64(place, number);
    return checksum_crc32c(checksum_crc32c(0, place, sizeof place), footer, length - 4);
}

/* ------------------------------------------------------------------------------------------------
 * writing */

struct segment_writer_part {
    struct part_info info;
    struct section_range sections[SECTION_TYPES];
};

struct segment_writer {
    struct storage *storage;
    struct storage_file file;
    enum storage_kind kind;
    uint64_t number;
    uint64_t size;        /* appended so far */
    uint64_t written;     /* of it, in the file */
    uint64_t block_start; /* file offset of buffer[0] */
    uint8_t *buffer;
    uint32_t *checksums; /* of blocks below block_start */
    size_t checksum_capacity;
    struct segment_writer_part *parts;
    uint32_t part_count;
    size_t part_capacity;
    int part_open;
    enum section_type section; /* 0: none is open */
    uint32_t views;            /* given out by segment_writer_flush */
    int finished;
    int code; /* the first error, with its sentence */
    char text[ERROR_TEXT_BYTES];
};

static int segment_writer_fail(struct segment_writer *writer, int code)
{
    if (code != OMENDB_OK && writer->code == OMENDB_OK) {
        writer->code = code;
        snprintf(writer->text, sizeof writer->text, "%s", error_text());
    }
    return code;
}

/* The error that stuck, told again. */
static int segment_writer_state(const struct segment_writer *writer)
{
    return writer->code == OMENDB_OK ? OMENDB_OK : error_adopt(writer->code, writer->text);
}

static size_t segment_writer_buffered(const struct segment_writer *writer)
{
    return (size_t)(writer->size - writer->block_start);
}

/* Doubles an array; `at_least` elements fit afterwards. */
static int segment_writer_grow(struct memory *memory, void **array, size_t *capacity,
                               size_t at_least, size_t element)
{
    if (at_least <= *capacity)
        return OMENDB_OK;
    size_t larger = *capacity == 0 ? 16 : memory_multiply(*capacity, 2);
    if (larger < at_least)
        larger = at_least;
    void *moved = memory_resize(memory, *array, memory_multiply(*capacity, element),
                                memory_multiply(larger, element));
    if (moved == NULL)
        return OMENDB_NOMEM;
    *array = moved;
    *capacity = larger;
    return OMENDB_OK;
}

static int segment_writer_put_file(struct segment_writer *writer)
{
    const uint8_t *from = writer->buffer + (size_t)(writer->written - writer->block_start);
    int code = storage_write(writer->storage, &writer->file, writer->written, from,
                             (size_t)(writer->size - writer->written));
    if (code == OMENDB_OK)
        writer->written = writer->size;
    return code;
}

/* Writes what is buffered, takes the checksums of its whole blocks and keeps the rest of the last
 * one. */
static int segment_writer_drain(struct segment_writer *writer)
{
    size_t blocks = segment_writer_buffered(writer) / BLOCK_BYTES;
    uint64_t first = writer->block_start >> BLOCK_SHIFT;
    void *checksums = writer->checksums;
    int code = segment_writer_grow(writer->storage->memory, &checksums, &writer->checksum_capacity,
                                   (size_t)first + blocks, sizeof *writer->checksums);
    writer->checksums = checksums;
    if (code == OMENDB_OK)
        code = segment_writer_put_file(writer);
    if (code != OMENDB_OK)
        return code;
    for (size_t i = 0; i < blocks; i++)
        writer->checksums[first + i] =
            blocks_checksum(writer->number, first + i, writer->buffer + i * BLOCK_BYTES);
    memmove(writer->buffer, writer->buffer + blocks * BLOCK_BYTES,
            segment_writer_buffered(writer) - blocks * BLOCK_BYTES);
    writer->block_start += (uint64_t)blocks * BLOCK_BYTES;
    return OMENDB_OK;
}

/* data NULL: zeros. */
static int segment_writer_put(struct segment_writer *writer, const void *data, size_t size)
{
    const uint8_t *from = data;
    assert(writer->views == 0); /* a vfs may refuse to write a file that it has mapped */
    while (size > 0) {
        size_t used = segment_writer_buffered(writer), room = SEGMENT_BUFFER_BYTES - used;
        size_t piece = size < room ? size : room;
        if (from != NULL) {
            memcpy(writer->buffer + used, from, piece);
            from += piece;
        } else {
            memset(writer->buffer + used, 0, piece);
        }
        writer->size += piece;
        size -= piece;
        if (piece == room) {
            int code = segment_writer_drain(writer);
            if (code != OMENDB_OK)
                return code;
        }
    }
    return OMENDB_OK;
}

static int segment_writer_pad(struct segment_writer *writer, uint64_t align)
{
    return segment_writer_put(writer, NULL,
                              (size_t)(format_align(writer->size, align) - writer->size));
}

static int segment_writer_put_header(struct segment_writer *writer)
{
    uint8_t header[FORMAT_HEADER_BYTES];
    storage_header_begin(header, segment_magic(writer->kind));
    format_put64(header + FORMAT_SEGMENT_NUMBER, writer->number);
    storage_header_end(header);
    return segment_writer_put(writer, header, sizeof header);
}

OMENDB_INTERNAL int segment_writer_create(struct storage *storage, enum storage_kind kind,
                                          uint64_t number, uint64_t expected_bytes,
                                          struct segment_writer **writer)
{
    char name[STORAGE_NAME_BYTES];
    *writer = NULL;
    assert(kind == STORAGE_SEGMENT || kind == STORAGE_OVERLAY);
    struct segment_writer *made = memory_zalloc(storage->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->storage = storage;
    made->kind = kind;
    made->number = number;
    made->buffer = memory_alloc(storage->memory, SEGMENT_BUFFER_BYTES);
    storage_name(kind, number, name);
    int code = made->buffer == NULL ? OMENDB_NOMEM
                                    : storage_open(storage, name,
                                                   OMENDB_OPEN_READ | OMENDB_OPEN_WRITE |
                                                       OMENDB_OPEN_CREATE | OMENDB_OPEN_EXCLUSIVE,
                                                   &made->file);
    if (code == OMENDB_OK) {
        /* A failure is of no account: the guess may be too large, and the writes will tell. */
        if (expected_bytes > 0)
            (void)storage_allocate(storage, &made->file, expected_bytes);
        code = segment_writer_put_header(made);
    }
    if (code != OMENDB_OK) {
        segment_writer_fail(made, code);
        segment_writer_destroy(made);
        return code;
    }
    *writer = made;
    return OMENDB_OK;
}

static struct segment_writer_part *segment_writer_current(const struct segment_writer *writer)
{
    assert(writer->part_open);
    return &writer->parts[writer->part_count - 1];
}

OMENDB_INTERNAL int segment_writer_begin_part(struct segment_writer *writer)
{
    void *parts = writer->parts;
    int code = segment_writer_state(writer);
    if (code != OMENDB_OK)
        return code;
    assert(!writer->part_open && !writer->finished);
    code = segment_writer_grow(writer->storage->memory, &parts, &writer->part_capacity,
                               (size_t)writer->part_count + 1, sizeof *writer->parts);
    writer->parts = parts;
    if (code != OMENDB_OK)
        return segment_writer_fail(writer, code);
    memset(&writer->parts[writer->part_count], 0, sizeof *writer->parts);
    writer->part_count++;
    writer->part_open = 1;
    writer->section = (enum section_type)0;
    return OMENDB_OK;
}

OMENDB_INTERNAL int segment_writer_begin_section(struct segment_writer *writer,
                                                 enum section_type type)
{
    int code = segment_writer_state(writer);
    if (code != OMENDB_OK)
        return code;
    struct section_range *section = &segment_writer_current(writer)->sections[type];
    assert(section->offset == 0);
    code = segment_writer_fail(writer, segment_writer_pad(writer, FORMAT_SECTION_ALIGN));
    section->offset = writer->size;
    writer->section = type;
    return code;
}

OMENDB_INTERNAL int segment_writer_append(struct segment_writer *writer, const void *data,
                                          size_t size)
{
    int code = segment_writer_state(writer);
    if (code != OMENDB_OK)
        return code;
    assert(writer->section != 0);
    code = segment_writer_fail(writer, segment_writer_put(writer, data, size));
    if (code == OMENDB_OK)
        segment_writer_current(writer)->sections[writer->section].length += size;
    return code;
}

OMENDB_INTERNAL int segment_writer_end_part(struct segment_writer *writer,
                                            const struct part_info *info)
{
    int code = segment_writer_state(writer);
    if (code != OMENDB_OK)
        return code;
    segment_writer_current(writer)->info = *info;
    writer->part_open = 0;
    writer->section = (enum section_type)0;
    return OMENDB_OK;
}

OMENDB_INTERNAL int segment_writer_flush(struct segment_writer *writer, enum section_type type,
                                         struct block_file **view, uint64_t *offset)
{
    struct memory *memory = writer->storage->memory;
    *view = NULL;
    *offset = 0;
    int code = segment_writer_state(writer);
    if (code == OMENDB_OK)
        code = segment_writer_fail(writer, segment_writer_drain(writer));
    if (code != OMENDB_OK)
        return code;
    struct block_file *made = memory_alloc(memory, sizeof *made);
    if (made == NULL)
        return segment_writer_fail(writer, OMENDB_NOMEM);
    code = blocks_open(writer->storage, &writer->file, writer->number, writer->size, NULL, made);
    if (code != OMENDB_OK) {
        memory_free(memory, made, sizeof *made);
        return segment_writer_fail(writer, code);
    }
    *offset = segment_writer_current(writer)->sections[type].offset;
    *view = made;
    writer->views++;
    return OMENDB_OK;
}

OMENDB_INTERNAL void segment_flush_close(struct segment_writer *writer, struct block_file *view)
{
    if (view == NULL)
        return;
    blocks_close(view);
    memory_free(writer->storage->memory, view, sizeof *view);
    writer->views--;
}

static void segment_encode_part(uint8_t *at, const struct part_info *info)
{
    memset(at, 0, FORMAT_PART_BYTES);
    format_put64(at + FORMAT_PART_COLLECTION, info->collection);
    format_put64(at + FORMAT_PART_TARGET_FILE, info->target_file);
    format_put64(at + FORMAT_PART_SMALLEST_ID, info->smallest_id);
    format_put64(at + FORMAT_PART_LARGEST_ID, info->largest_id);
    format_put32(at + FORMAT_PART_TARGET_PART, info->target_part);
    format_put32(at + FORMAT_PART_FLAGS, info->flags);
    format_put32(at + FORMAT_PART_ROWS, info->rows);
    format_put32(at + FORMAT_PART_INDEXED_ROWS, info->indexed_rows);
    format_put32(at + FORMAT_PART_UPPER_COUNT, info->upper_count);
    format_put32(at + FORMAT_PART_ENTRY_ROW, info->entry_row);
    format_put32(at + FORMAT_PART_ENTRY_LEVEL, info->entry_level);
    format_put32(at + FORMAT_PART_M, info->M);
    format_put32(at + FORMAT_PART_VECTOR_STRIDE, info->vector_stride);
    format_put32(at + FORMAT_PART_DIM, info->dim);
    format_put32(at + FORMAT_PART_SCALAR, info->scalar);
    format_put32(at + FORMAT_PART_METRIC, info->metric);
    format_put_float(at + FORMAT_PART_REFERENCE_RECALL, info->reference_recall);
    format_put32(at + FORMAT_PART_REFERENCE_ROWS, info->reference_rows);
    format_put_float(at + FORMAT_PART_CODE_LOW, info->code_low);
    format_put_float(at + FORMAT_PART_CODE_STEP, info->code_step);
}

/* Sections of one part in the order of their offsets, which is the order in which they were begun;
 * empty ones are left out. */
static size_t segment_order_sections(const struct segment_writer_part *part,
                                     size_t order[SECTION_TYPES])
{
    size_t count = 0;
    for (size_t type = 0; type < SECTION_TYPES; type++) {
        if (part->sections[type].length == 0)
            continue;
        size_t place = count++;
        while (place > 0 && part->sections[order[place - 1]].offset > part->sections[type].offset) {
            order[place] = order[place - 1];
            place--;
        }
        order[place] = type;
    }
    return count;
}

static uint32_t segment_count_sections(const struct segment_writer *writer)
{
    uint32_t count = 0;
    for (uint32_t part = 0; part < writer->part_count; part++) {
        for (size_t type = 0; type < SECTION_TYPES; type++)
            count += writer->parts[part].sections[type].length != 0;
    }
    return count;
}

static uint8_t *segment_encode_sections(uint8_t *at, uint32_t number,
                                        const struct segment_writer_part *part)
{
    size_t order[SECTION_TYPES], count = segment_order_sections(part, order);
    for (size_t i = 0; i < count; i++) {
        format_put32(at + FORMAT_SECTION_PART, number);
        format_put32(at + FORMAT_SECTION_TYPE, (uint32_t)order[i]);
        format_put64(at + FORMAT_SECTION_OFFSET, part->sections[order[i]].offset);
        format_put64(at + FORMAT_SECTION_LENGTH, part->sections[order[i]].length);
        at += FORMAT_SECTION_BYTES;
    }
    return at;
}

static void segment_encode_footer(const struct segment_writer *writer, uint8_t *footer,
                                  size_t length, uint32_t section_count, uint32_t *footer_crc)
{
    uint8_t *at = footer, *trailer = footer + length - FORMAT_TRAILER_BYTES;
    for (uint32_t part = 0; part < writer->part_count; part++, at += FORMAT_PART_BYTES)
        segment_encode_part(at, &writer->parts[part].info);
    for (uint32_t part = 0; part < writer->part_count; part++)
        at = segment_encode_sections(at, part, &writer->parts[part]);
    for (uint64_t block = 0; block < writer->size >> BLOCK_SHIFT; block++, at += 4)
        format_put32(at, writer->checksums[block]);
    assert(at == trailer);
    memset(trailer, 0, FORMAT_TRAILER_BYTES);
    memcpy(trailer, FORMAT_MAGIC_FOOTER, FORMAT_MAGIC_BYTES);
    format_put64(trailer + FORMAT_TRAILER_LENGTH, length);
    format_put32(trailer + FORMAT_TRAILER_PARTS, writer->part_count);
    format_put32(trailer + FORMAT_TRAILER_SECTIONS, section_count);
    *footer_crc = segment_footer_checksum(writer->number, footer, length);
    format_put32(trailer + FORMAT_TRAILER_CRC, *footer_crc);
}

/* Writes the footer behind the data and cuts the file there. */
static int segment_write_footer(struct segment_writer *writer, uint64_t *size, uint32_t *footer_crc)
{
    uint32_t section_count = segment_count_sections(writer);
    size_t length = memory_multiply(writer->part_count, FORMAT_PART_BYTES);
    length = memory_add(length, memory_multiply(section_count, FORMAT_SECTION_BYTES));
    length = memory_add(length, memory_multiply((size_t)(writer->size >> BLOCK_SHIFT), 4));
    length = memory_add(length, FORMAT_TRAILER_BYTES);
    uint8_t *footer = memory_alloc(writer->storage->memory, length);
    if (footer == NULL)
        return OMENDB_NOMEM;
    segment_encode_footer(writer, footer, length, section_count, footer_crc);
    int code = storage_write(writer->storage, &writer->file, writer->size, footer, length);
    memory_free(writer->storage->memory, footer, length);
    if (code == OMENDB_OK)
        code = storage_truncate(writer->storage, &writer->file,
                                writer->size + length); /* what was reserved beyond */
    *size = writer->size + length;
    return code;
}

OMENDB_INTERNAL int segment_writer_finish(struct segment_writer *writer, uint64_t *size,
                                          uint32_t *footer_crc)
{
    int code = segment_writer_state(writer);
    if (code != OMENDB_OK)
        return code;
    assert(!writer->part_open && !writer->finished);
    code = segment_writer_pad(writer, BLOCK_BYTES);
    if (code == OMENDB_OK)
        code = segment_writer_drain(writer);
    if (code == OMENDB_OK)
        code = segment_write_footer(writer, size, footer_crc);
    if (code == OMENDB_OK)
        code = storage_sync(writer->storage, &writer->file);
    if (code == OMENDB_OK)
        code = storage_close(writer->storage, &writer->file);
    writer->finished = code == OMENDB_OK;
    return segment_writer_fail(writer, code);
}

OMENDB_INTERNAL void segment_writer_destroy(struct segment_writer *writer)
{
    if (writer == NULL)
        return;
    assert(writer->views == 0);
    struct memory *memory = writer->storage->memory;
    /* An open file was created here and not finished. Its failure to go is of no account: no
     * manifest names it. */
    if (!writer->finished && writer->file.handle != NULL) {
        /* Whoever failed before has the last word, in this writer or elsewhere. */
        char text[ERROR_TEXT_BYTES];
        memcpy(text, error_text(), strlen(error_text()) + 1);
        storage_close(writer->storage, &writer->file);
        storage_unlink(writer->storage, writer->file.name);
        error_adopt(writer->code, text);
    }
    memory_free(memory, writer->buffer, SEGMENT_BUFFER_BYTES);
    memory_free(memory, writer->checksums, writer->checksum_capacity * sizeof *writer->checksums);
    memory_free(memory, writer->parts, writer->part_capacity * sizeof *writer->parts);
    memory_free(memory, writer, sizeof *writer);
}

OMENDB_INTERNAL uint32_t segment_writer_parts(const struct segment_writer *writer)
{
    return writer->part_count;
}

/* ------------------------------------------------------------------------------------------------
 * opening */

/* What the trailer tells, bounded. */
struct segment_footer {
    uint8_t *bytes;
    size_t length;
    uint32_t part_count, section_count;
    uint64_t block_count;
};

static int segment_corrupt(const char *name, uint64_t offset, const char *why)
{
    return error_set(OMENDB_CORRUPT, "%s: footer (offset %" PRIu64 "): %s; " ERROR_RESTORE, name,
                     offset, why);
}

static int segment_check_header(struct storage *storage, struct storage_file *file,
                                enum storage_kind kind, uint64_t number)
{
    uint8_t header[FORMAT_HEADER_BYTES];
    int code = storage_read(storage, file, 0, header, sizeof header);
    if (code == OMENDB_OK)
        code = storage_header_check(file->name, header, segment_magic(kind));
    if (code == OMENDB_OK && format_get64(header + FORMAT_SEGMENT_NUMBER) != number)
        code = error_set(OMENDB_CORRUPT,
                         "%s: its header says number %" PRIu64 ": it is another file, renamed",
                         file->name, format_get64(header + FORMAT_SEGMENT_NUMBER));
    return code;
}

/* Bounds the trailer's numbers against the file; the products fit, as counts have 32 bits and sizes
 * are below 2^63. */
static int segment_parse_trailer(const char *name, const uint8_t *trailer, uint64_t size,
                                 struct segment_footer *footer)
{
    uint64_t length = format_get64(trailer + FORMAT_TRAILER_LENGTH), data = size - length;
    footer->part_count = format_get32(trailer + FORMAT_TRAILER_PARTS);
    footer->section_count = format_get32(trailer + FORMAT_TRAILER_SECTIONS);
    if (memcmp(trailer, FORMAT_MAGIC_FOOTER, FORMAT_MAGIC_BYTES) != 0)
        return segment_corrupt(name, size - FORMAT_TRAILER_BYTES,
                               "there is none; the file was cut or never finished");
    if (length < FORMAT_TRAILER_BYTES || length >= size || length > SIZE_MAX ||
        data % BLOCK_BYTES != 0)
        return segment_corrupt(name, size - FORMAT_TRAILER_BYTES,
                               "its length does not fit the file");
    footer->length = (size_t)length;
    footer->block_count = data >> BLOCK_SHIFT;
    uint64_t fixed = (uint64_t)footer->part_count * FORMAT_PART_BYTES +
                     (uint64_t)footer->section_count * FORMAT_SECTION_BYTES + FORMAT_TRAILER_BYTES;
    if (fixed > length || (length - fixed) % 4 != 0 || (length - fixed) / 4 != footer->block_count)
        return segment_corrupt(name, size - FORMAT_TRAILER_BYTES,
                               "its counts do not fit its length");
    return OMENDB_OK;
}

/* The footer that ends at `size`, in memory; its checksum is compared by the caller. */
static int segment_load_footer(struct storage *storage, struct storage_file *file, uint64_t size,
                               struct segment_footer *footer)
{
    uint8_t trailer[FORMAT_TRAILER_BYTES];
    int code = storage_read(storage, file, size - sizeof trailer, trailer, sizeof trailer);
    if (code == OMENDB_OK)
        code = segment_parse_trailer(file->name, trailer, size, footer);
    if (code != OMENDB_OK)
        return code;
    size_t length = footer->length;
    footer->bytes = memory_alloc(storage->memory, length);
    if (footer->bytes == NULL)
        return OMENDB_NOMEM;
    code = storage_read(storage, file, size - length, footer->bytes, length);
    /* The trailer again, as this copy is the one that the checksum is about. It may be another one
     * by now, where somebody writes to the file. */
    if (code == OMENDB_OK)
        code = segment_parse_trailer(file->name, footer->bytes + length - sizeof trailer, size,
                                     footer);
    if (code == OMENDB_OK && footer->length != length)
        code = segment_corrupt(file->name, size - sizeof trailer, "it changed while it was read");
    footer->length = length;
    return code;
}

static int segment_read_footer(struct storage *storage, struct storage_file *file, uint64_t number,
                               uint64_t size, uint32_t footer_crc, struct segment_footer *footer)
{
    uint64_t present;
    int code = storage_size(storage, file, &present);
    if (code != OMENDB_OK)
        return code;
    if (present != size || size < BLOCK_BYTES + FORMAT_TRAILER_BYTES || size > INT64_MAX)
        return error_set(OMENDB_CORRUPT,
                         "%s: has %" PRIu64 " bytes, expected %" PRIu64 "; " ERROR_RESTORE,
                         file->name, present, size);
    code = segment_load_footer(storage, file, size, footer);
    if (code != OMENDB_OK)
        return code;
    uint32_t crc = segment_footer_checksum(number, footer->bytes, footer->length);
    uint32_t stored = format_get32(footer->bytes + footer->length - 4);
    if (crc != stored || crc != footer_crc)
        return error_set(OMENDB_CORRUPT,
                         "%s: footer (offset %" PRIu64 "): checksum %08" PRIx32
                         ", expected %08" PRIx32 "; " ERROR_RESTORE,
                         file->name, size - footer->length, crc,
                         crc != footer_crc ? footer_crc : stored);
    return OMENDB_OK;
}

static void segment_decode_part(const uint8_t *at, struct part_info *info)
{
    info->collection = format_get64(at + FORMAT_PART_COLLECTION);
    info->target_file = format_get64(at + FORMAT_PART_TARGET_FILE);
    info->smallest_id = format_get64(at + FORMAT_PART_SMALLEST_ID);
    info->largest_id = format_get64(at + FORMAT_PART_LARGEST_ID);
    info->target_part = format_get32(at + FORMAT_PART_TARGET_PART);
    info->flags = format_get32(at + FORMAT_PART_FLAGS);
    info->rows = format_get32(at + FORMAT_PART_ROWS);
    info->indexed_rows = format_get32(at + FORMAT_PART_INDEXED_ROWS);
    info->upper_count = format_get32(at + FORMAT_PART_UPPER_COUNT);
    info->entry_row = format_get32(at + FORMAT_PART_ENTRY_ROW);
    info->entry_level = format_get32(at + FORMAT_PART_ENTRY_LEVEL);
    info->M = format_get32(at + FORMAT_PART_M);
    info->vector_stride = format_get32(at + FORMAT_PART_VECTOR_STRIDE);
    info->dim = format_get32(at + FORMAT_PART_DIM);
    info->scalar = format_get32(at + FORMAT_PART_SCALAR);
    info->metric = format_get32(at + FORMAT_PART_METRIC);
    info->reference_recall = format_get_float(at + FORMAT_PART_REFERENCE_RECALL);
    info->reference_rows = format_get32(at + FORMAT_PART_REFERENCE_ROWS);
    info->code_low = format_get_float(at + FORMAT_PART_CODE_LOW);
    info->code_step = format_get_float(at + FORMAT_PART_CODE_STEP);
}

/* Bytes that a section of this type needs by its part's counts; rows * 2M * 4 may exceed 64 bits,
 * so M is bounded first. */
static uint64_t segment_section_needs(const struct part_info *info, size_t type)
{
    uint64_t rows = info->rows, linked = info->indexed_rows;
    switch (type) {
    case SECTION_VECTORS:
        return rows * info->vector_stride;
    case SECTION_LINKS:
        return linked * 2 * info->M * sizeof(uint32_t);
    case SECTION_CODES:
        return rows * codes_stride(info->dim);
    case SECTION_LEVELS:
        return linked;
    case SECTION_UPPER_INDEX:
        return linked * sizeof(uint32_t);
    case SECTION_SORTED_ROWS:
        return rows * sizeof(uint32_t);
    case SECTION_UPPER_LINKS:
        return (uint64_t)info->upper_count * info->M * sizeof(uint32_t);
    case SECTION_IDS:
    case SECTION_SORTED_IDS:
    case SECTION_DOCUMENT_ENDS:
        return rows * sizeof(uint64_t);
    case SECTION_CALIBRATION:
        return FORMAT_CALIBRATION_BYTES + FORMAT_CURVE_BYTES;
    case SECTION_ID_MODEL:
        return FORMAT_MODEL_KEYS;
    default:
        return 0;
    }
}

#define SEGMENT_LARGEST_M 65535

/* Sections of overlays: what is wrong with them, or NULL. */
static const char *segment_wrong_overlay(const struct section_range *sections)
{
    const uint64_t rows = sections[SECTION_OVERLAY_ROWS].length / sizeof(uint32_t);
    if (sections[SECTION_TOMBSTONES].length % sizeof(uint32_t) != 0)
        return "tombstones that are no whole rows";
    if (sections[SECTION_OVERLAY_ROWS].length % sizeof(uint32_t) != 0 ||
        sections[SECTION_OVERLAY_COMMITS].length != rows * sizeof(uint64_t) ||
        sections[SECTION_DOCUMENT_ENDS].length != rows * sizeof(uint64_t) ||
        (rows == 0 && sections[SECTION_DOCUMENTS].length != 0))
        return "documents that do not fit their rows";
    return NULL;
}

static int segment_check_parts(const struct segment_file *file, const char *name, uint64_t offset)
{
    for (uint32_t part = 0; part < file->part_count; part++, offset += FORMAT_PART_BYTES) {
        const struct part_info *info = &file->parts[part];
        const struct section_range *sections = file->sections + (size_t)part * SECTION_TYPES;
        if (file->kind == STORAGE_OVERLAY) {
            const char *wrong = segment_wrong_overlay(sections);
            if (wrong != NULL)
                return segment_corrupt(name, offset, wrong);
            continue;
        }
        if (info->M > SEGMENT_LARGEST_M || info->indexed_rows > info->rows)
            return segment_corrupt(name, offset, "a part with impossible counts");
        for (size_t type = 0; type < SECTION_TYPES; type++) {
            if (sections[type].length != 0 &&
                sections[type].length < segment_section_needs(info, type))
                return segment_corrupt(name, offset, "a section is too short for its rows");
        }
    }
    return OMENDB_OK;
}

/* Sections ascend by part, and by offset without overlap; a type occurs once a part. */
static int segment_decode_sections(struct segment_file *file, const char *name,
                                   const struct segment_footer *footer, uint64_t offset)
{
    const uint8_t *at = footer->bytes + (size_t)footer->part_count * FORMAT_PART_BYTES;
    uint64_t end = FORMAT_HEADER_BYTES, data = footer->block_count << BLOCK_SHIFT;
    uint32_t last_part = 0;
    offset += (uint64_t)footer->part_count * FORMAT_PART_BYTES;
    for (uint32_t i = 0; i < footer->section_count;
         i++, at += FORMAT_SECTION_BYTES, offset += FORMAT_SECTION_BYTES) {
        uint32_t part = format_get32(at + FORMAT_SECTION_PART),
                 type = format_get32(at + FORMAT_SECTION_TYPE);
        struct section_range range = {format_get64(at + FORMAT_SECTION_OFFSET),
                                      format_get64(at + FORMAT_SECTION_LENGTH)};
        if (part >= footer->part_count || part < last_part || type == 0 || type >= SECTION_TYPES)
            return segment_corrupt(name, offset, "a section of no part, or of an unknown type");
        if (range.offset % FORMAT_SECTION_ALIGN != 0 || range.offset < end || range.offset > data ||
            range.length == 0 || range.length > data - range.offset)
            return segment_corrupt(name, offset,
                                   "a section lies outside the data, or over another one");
        struct section_range *section = &file->sections[(size_t)part * SECTION_TYPES + type];
        if (section->length != 0)
            return segment_corrupt(name, offset, "a part has two sections of one type");
        *section = range;
        last_part = part;
        end = range.offset + range.length;
    }
    return OMENDB_OK;
}

/* One allocation: the struct, its parts, sections and checksums, each a multiple of 8 bytes. */
static struct segment_file *segment_file_alloc(struct storage *storage, enum storage_kind kind,
                                               uint64_t number, const struct segment_footer *footer,
                                               uint32_t **checksums)
{
    size_t parts = memory_multiply(footer->part_count, sizeof(struct part_info));
    size_t sections = memory_multiply(memory_multiply(footer->part_count, SECTION_TYPES),
                                      sizeof(struct section_range));
    size_t table = memory_multiply((size_t)footer->block_count, sizeof **checksums);
    size_t total =
        memory_add(memory_add(sizeof(struct segment_file), parts), memory_add(sections, table));
    struct segment_file *file = memory_zalloc(storage->memory, total);
    if (file == NULL)
        return NULL;
    uint8_t *at = (uint8_t *)(file + 1);
    file->storage = storage;
    file->kind = kind;
    file->number = number;
    file->part_count = footer->part_count;
    file->allocated = total;
    file->parts = (void *)at;
    file->sections = (void *)(at + parts);
    *checksums = (void *)(at + parts + sections);
    return file;
}

_Static_assert(sizeof(struct segment_file) % 8 == 0 && sizeof(struct part_info) % 8 == 0 &&
                   sizeof(struct section_range) % 8 == 0,
               "what shares an allocation stays aligned");

/* The opened file from a footer whose checksum was right. */
static int segment_file_make(struct storage *storage, struct storage_file *handle,
                             enum storage_kind kind, uint64_t number,
                             const struct segment_footer *footer, struct segment_file **file)
{
    uint32_t *checksums;
    uint64_t data = footer->block_count << BLOCK_SHIFT;
    struct segment_file *made = segment_file_alloc(storage, kind, number, footer, &checksums);
    if (made == NULL)
        return OMENDB_NOMEM;
    for (uint32_t part = 0; part < footer->part_count; part++)
        segment_decode_part(footer->bytes + (size_t)part * FORMAT_PART_BYTES, &made->parts[part]);
    memcpy(checksums,
           footer->bytes + footer->length - FORMAT_TRAILER_BYTES -
               (size_t)footer->block_count * sizeof *checksums,
           (size_t)footer->block_count * sizeof *checksums);
    int code = segment_decode_sections(made, handle->name, footer, data);
    if (code == OMENDB_OK)
        code = segment_check_parts(made, handle->name, data);
    if (code == OMENDB_OK)
        code = blocks_open(storage, handle, number, data, checksums, &made->blocks);
    if (code != OMENDB_OK) {
        segment_file_close(made);
        return code;
    }
    *file = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL int segment_file_open(struct storage *storage, enum storage_kind kind,
                                      uint64_t number, uint64_t size, uint32_t footer_crc,
                                      struct segment_file **file)
{
    struct storage_file handle;
    struct segment_footer footer = {NULL, 0, 0, 0, 0};
    char name[STORAGE_NAME_BYTES];
    *file = NULL;
    storage_name(kind, number, name);
    int code = storage_open(storage, name, OMENDB_OPEN_READ, &handle);
    if (code == OMENDB_NOTFOUND)
        return error_set(OMENDB_CORRUPT, "%s is missing; " ERROR_RESTORE, name);
    if (code != OMENDB_OK)
        return code;
    code = segment_read_footer(storage, &handle, number, size, footer_crc, &footer);
    if (code == OMENDB_OK)
        code = segment_check_header(storage, &handle, kind, number);
    if (code == OMENDB_OK)
        code = segment_file_make(storage, &handle, kind, number, &footer, file);
    memory_free(storage->memory, footer.bytes, footer.length);
    storage_close(storage, &handle); /* nothing was written: a failure cannot lose anything */
    return code;
}

/* Whether the bytes of a section are exactly those that its part asks for. */
static int segment_section_is_exact(const struct part_info *info, size_t type, uint64_t length)
{
    int ascend = (info->flags & SEGMENT_IDS_ASCEND) != 0;
    switch (type) {
    case SECTION_TOMBSTONES:
    case SECTION_ID_FILTER:
    case SECTION_CALIBRATION:
    case SECTION_DOCUMENTS:
    case SECTION_KEY_HASHES:
    case SECTION_KEY_ROWS:
    case SECTION_KEY_FILTER:
    case SECTION_COLUMNS:
    case SECTION_ID_MODEL:
        return 1;
    case SECTION_SORTED_IDS:
    case SECTION_SORTED_ROWS:
        return length == (ascend ? 0 : segment_section_needs(info, type));
    case SECTION_VECTORS:
    case SECTION_IDS:
        return length == segment_section_needs(info, type);
    default:
        return length == 0 || length == segment_section_needs(info, type);
    }
}

/* Whether sections fill the data from the header to its end and fit their parts: what a damaged
 * number in the directory would not leave so. Sections of a file were bounded when they were
 * decoded, where they also were found to ascend, so their offsets are gone through in order. */
static int segment_is_tight(const struct segment_file *file, const struct segment_footer *footer)
{
    const uint8_t *at = footer->bytes + (size_t)footer->part_count * FORMAT_PART_BYTES;
    uint64_t end = FORMAT_HEADER_BYTES;
    for (uint32_t i = 0; i < footer->section_count; i++, at += FORMAT_SECTION_BYTES) {
        uint64_t offset = format_get64(at + FORMAT_SECTION_OFFSET);
        if (offset != format_align(end, FORMAT_SECTION_ALIGN))
            return 0;
        end = offset + format_get64(at + FORMAT_SECTION_LENGTH);
    }
    for (uint32_t part = 0; part < file->part_count && file->kind == STORAGE_SEGMENT; part++) {
        const struct part_info *info = &file->parts[part];
        for (size_t type = 0; type < SECTION_TYPES; type++) {
            struct section_range range = segment_section(file, part, (enum section_type)type);
            if (type != 0 && !segment_section_is_exact(info, type, range.length))
                return 0;
        }
        if (info->scalar > OMENDB_B1 ||
            info->vector_stride != scalar_bytes((omendb_scalar)info->scalar, info->dim))
            return 0;
    }
    return format_align(end, BLOCK_BYTES) == footer->block_count << BLOCK_SHIFT;
}

/* The footer that ends at `size`; its checksum is compared by the caller. */
static int segment_salvage_footer(struct storage *storage, struct storage_file *file, uint64_t size,
                                  struct segment_footer *footer)
{
    uint64_t present;
    int code = storage_size(storage, file, &present);
    if (code == OMENDB_OK && (present < size || size < BLOCK_BYTES + FORMAT_TRAILER_BYTES))
        code = segment_corrupt(file->name, present, "the file was cut or never finished");
    return code == OMENDB_OK ? segment_load_footer(storage, file, size, footer) : code;
}

/* A damaged header is reported; one of a later version is not overlooked. */
static int segment_salvage_header(struct storage *storage, struct storage_file *handle,
                                  enum storage_kind kind, uint64_t number,
                                  void (*report)(void *context, const char *sentence),
                                  void *context)
{
    int code = segment_check_header(storage, handle, kind, number);
    if (code == OMENDB_OK || code == OMENDB_NOMEM || code == OMENDB_FORMAT)
        return code;
    report(context, error_text());
    return OMENDB_OK;
}

OMENDB_INTERNAL int segment_file_salvage(struct storage *storage, enum storage_kind kind,
                                         uint64_t number, uint64_t size,
                                         void (*report)(void *context, const char *sentence),
                                         void *context, struct segment_file **file, int *sound)
{
    struct storage_file handle;
    struct segment_footer footer = {NULL, 0, 0, 0, 0};
    char name[STORAGE_NAME_BYTES];
    *file = NULL;
    storage_name(kind, number, name);
    int code = storage_open(storage, name, OMENDB_OPEN_READ, &handle);
    if (code == OMENDB_OK && size == 0)
        code = storage_size(storage, &handle, &size);
    if (code == OMENDB_OK)
        code = segment_salvage_footer(storage, &handle, size, &footer);
    if (code == OMENDB_OK)
        code = segment_salvage_header(storage, &handle, kind, number, report, context);
    if (code == OMENDB_OK)
        code = segment_file_make(storage, &handle, kind, number, &footer, file);
    if (code == OMENDB_OK) {
        *sound = segment_footer_checksum(number, footer.bytes, footer.length) ==
                 format_get32(footer.bytes + footer.length - 4);
        if (!*sound) {
            code = segment_corrupt(name, size - footer.length,
                                   "its checksum is wrong, and its numbers do not fit together");
            if (segment_is_tight(*file, &footer)) {
                error_set(OMENDB_CORRUPT,
                          "%s: footer (offset %" PRIu64 "): its checksum is wrong, but its numbers "
                          "fit together and are taken",
                          name, size - footer.length);
                report(context, error_text());
                code = OMENDB_OK;
            }
        }
    }
    if (code != OMENDB_OK) {
        segment_file_close(*file);
        *file = NULL;
    }
    memory_free(storage->memory, footer.bytes, footer.length);
    storage_close(storage, &handle);
    return code;
}

OMENDB_INTERNAL void segment_file_close(struct segment_file *file)
{
    if (file == NULL)
        return;
    struct memory *memory = file->storage->memory;
    blocks_close(&file->blocks);
    memory_free(memory, file, file->allocated);
}

OMENDB_INTERNAL int segment_file_check(struct segment_file *file,
                                       void (*report)(void *context, uint64_t block,
                                                      const char *sentence),
                                       void *context)
{
    return blocks_check(&file->blocks, report, context);
}

#undef SEGMENT_BUFFER_BYTES
#undef SEGMENT_LARGEST_M
