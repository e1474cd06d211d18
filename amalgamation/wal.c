/* wal.c: appending to the log and reading it back. wal.h tells the rules, format.h the bytes.
 *
 * Invariant of the writer: bytes from `length` to the end of the file are zeros, and `length` is
 * the end of the last record that was appended in full. A failed append truncates the file to
 * `length`, which also makes the zeros true again, and reserves the space anew; where even that
 * fails the log is poisoned, since a later append would leave a record behind garbage.
 *
 * Invariant of the reader: what is delivered is a prefix of what was appended. The proof that the
 * prefix is long enough is `durable_upto`: a record that says so was appended after everything
 * below was on the device, so a record that is bad below it was good once, and is damage. A record
 * that nobody vouches for may be torn. The final length of a log that has a successor vouches for
 * all of it.
 *
 * The search behind a bad record looks at each multiple of 8 for the log id, which is random and so
 * not met by chance, and then for a matching checksum. Copies of records in somebody's payload do
 * no harm: they say a `durable_upto` below the record that carries them. Work is bounded: genuine
 * records do not overlap, so what candidates claim together cannot exceed the rest of the file.
 *
 * Rejected: mapping the log (a writer in another process cuts it under the reader's feet), and a
 * checksum chained from record to record (the search could not verify a record behind a damaged
 * one). */
#include "wal.h"

#include "checksum.h"
#include "error.h"
#include "format.h"
#include "platform.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

_Static_assert(WAL_HEADER_BYTES == FORMAT_HEADER_BYTES, "wal.h and format.h tell the same length");

#define WAL_BUFFER_BYTES ((size_t)64 << 10)  /* gathers a record's pieces for one write */
#define WAL_WINDOW_BYTES ((size_t)1 << 20)   /* read at a time */
#define WAL_STEP_BYTES   (UINT64_C(4) << 20) /* reserved at a time, at most */
#define WAL_PAGE_BYTES   4096
#define WAL_AHEAD_BYTES  (UINT64_C(1) << 20)  /* zeros written ahead of small records */
#define WAL_AHEAD_RECORD (UINT64_C(16) << 10) /* the largest that is small */
/* Times the bytes of a damaged log that false records in it may claim. Those of a known id are few,
 * unless somebody made them; without it whatever has a length may be one. */
#define WAL_PATIENCE          2
#define WAL_PATIENCE_NAMELESS 64

/* ------------------------------------------------------------------------------------------------
 * writing */

static uint64_t wal_record_bytes(uint64_t payload)
{
    return FORMAT_RECORD_BYTES + format_align(payload, FORMAT_RECORD_ALIGN);
}

/* A log that could not be completed must not come back after a crash: as the successor of a log
 * that goes on it would give that one a final length that is too small. */
static int wal_discard(struct wal *wal, int code)
{
    struct storage *storage = wal->storage;
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof text, "%s", error_text());
    wal_close(wal);
    if (storage_unlink(storage, wal->file.name) != OMENDB_OK ||
        storage_sync_directory(storage) != OMENDB_OK)
        return error_set(OMENDB_POISONED,
                         "%.400s; then it could not be deleted: close and reopen the database",
                         text);
    return error_adopt(code, text);
}

static int wal_write_header(struct wal *wal, uint64_t predecessor, uint64_t predecessor_length)
{
    uint8_t header[FORMAT_HEADER_BYTES];
    storage_header_begin(header, FORMAT_MAGIC_WAL);
    format_put64(header + FORMAT_WAL_LOG_ID, wal->log_id);
    format_put64(header + FORMAT_WAL_FIRST_SEQUENCE, wal->next_sequence);
    format_put64(header + FORMAT_WAL_PREDECESSOR, predecessor);
    format_put64(header + FORMAT_WAL_PREDECESSOR_LENGTH, predecessor_length);
    storage_header_end(header);
    return storage_write(wal->storage, &wal->file, 0, header, sizeof header);
}

OMENDB_INTERNAL void wal_header_detach(uint8_t *header)
{
    format_put64(header + FORMAT_WAL_PREDECESSOR, 0);
    format_put64(header + FORMAT_WAL_PREDECESSOR_LENGTH, 0);
    storage_header_end(header);
}

/* Reserving is a kindness to later appends; without it the write decides. */
static void wal_reserve(struct wal *wal, uint64_t size)
{
    if (size > wal->allocated && storage_allocate(wal->storage, &wal->file, size) == OMENDB_OK)
        wal->allocated = size;
}

OMENDB_INTERNAL int wal_create(struct storage *storage, uint64_t number, uint64_t first_sequence,
                               uint64_t predecessor, uint64_t predecessor_length, uint64_t allocate,
                               int sync_now, struct wal *wal)
{
    char name[STORAGE_NAME_BYTES];
    memset(wal, 0, sizeof *wal);
    wal->storage = storage;
    wal->number = number;
    wal->next_sequence = first_sequence;
    wal->length = FORMAT_HEADER_BYTES;
    do
        platform_random(&wal->log_id, sizeof wal->log_id);
    while (wal->log_id == 0);
    wal->buffer = memory_alloc(storage->memory, WAL_BUFFER_BYTES);
    if (wal->buffer == NULL)
        return OMENDB_NOMEM;
    storage_name(STORAGE_WAL, number, name);
    int code = storage_open(storage, name,
                            OMENDB_OPEN_READ | OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE |
                                OMENDB_OPEN_EXCLUSIVE,
                            &wal->file);
    if (code != OMENDB_OK) {
        wal_close(wal);
        return code;
    }
    wal_reserve(wal, format_align(allocate, WAL_PAGE_BYTES));
    code = wal_write_header(wal, predecessor, predecessor_length);
    if (code == OMENDB_OK && sync_now)
        code = storage_sync(storage, &wal->file);
    if (code == OMENDB_OK && sync_now)
        code = storage_sync_directory(storage);
    if (code != OMENDB_OK)
        return wal_discard(wal, code);
    if (wal->allocated < wal->length)
        wal->allocated = wal->length;
    wal_set_durable(wal, sync_now ? wal->length : 0);
    return OMENDB_OK;
}

/* The pieces of one record on their way to the file: small ones are gathered, large ones written
 * where they are. */
struct wal_gather {
    struct wal *wal;
    uint64_t offset; /* of the file: where the buffer goes */
    size_t used;     /* of the buffer */
};

static int wal_gather_flush(struct wal_gather *gather)
{
    struct wal *wal = gather->wal;
    int code = storage_write(wal->storage, &wal->file, gather->offset, wal->buffer, gather->used);
    gather->offset += gather->used;
    gather->used = 0;
    return code;
}

static int wal_gather_put(struct wal_gather *gather, const void *data, size_t size)
{
    struct wal *wal = gather->wal;
    if (size == 0)
        return OMENDB_OK;
    if (size > WAL_BUFFER_BYTES - gather->used) {
        int code = wal_gather_flush(gather);
        if (code != OMENDB_OK)
            return code;
    }
    if (size >= WAL_BUFFER_BYTES) {
        int code = storage_write(wal->storage, &wal->file, gather->offset, data, size);
        gather->offset += size;
        return code;
    }
    memcpy(wal->buffer + gather->used, data, size);
    gather->used += size;
    return OMENDB_OK;
}

static const uint8_t wal_zeros[FORMAT_RECORD_ALIGN];

/* Fills the record's header; its checksum goes over the pieces and the padding too. */
static void wal_record_header(const struct wal *wal, uint64_t sequence, uint32_t type,
                              const struct wal_piece *pieces, size_t piece_count, uint64_t payload,
                              uint8_t *header)
{
    memset(header, 0, FORMAT_RECORD_BYTES);
    format_put32(header + FORMAT_RECORD_LENGTH, (uint32_t)payload);
    format_put64(header + FORMAT_RECORD_SEQUENCE, sequence);
    format_put64(header + FORMAT_RECORD_LOG_ID, wal->log_id);
    format_put64(header + FORMAT_RECORD_DURABLE,
                 atomic_load_explicit(&wal->durable_upto, memory_order_acquire));
    format_put32(header + FORMAT_RECORD_TYPE, type);
    uint32_t crc = checksum_crc32c(0, header, FORMAT_RECORD_CRC);
    crc = checksum_crc32c(crc, header + FORMAT_RECORD_SEQUENCE,
                          FORMAT_RECORD_BYTES - FORMAT_RECORD_SEQUENCE);
    for (size_t i = 0; i < piece_count; i++)
        crc = checksum_crc32c(crc, pieces[i].data, pieces[i].size);
    crc = checksum_crc32c(crc, wal_zeros,
                          (size_t)(format_align(payload, FORMAT_RECORD_ALIGN) - payload));
    format_put32(header + FORMAT_RECORD_CRC, crc);
}

static int wal_write_record(struct wal *wal, const uint8_t *header, const struct wal_piece *pieces,
                            size_t piece_count, uint64_t payload)
{
    struct wal_gather gather = {wal, wal->length, 0};
    int code = wal_gather_put(&gather, header, FORMAT_RECORD_BYTES);
    for (size_t i = 0; i < piece_count && code == OMENDB_OK; i++)
        code = wal_gather_put(&gather, pieces[i].data, pieces[i].size);
    if (code == OMENDB_OK)
        code = wal_gather_put(&gather, wal_zeros,
                              (size_t)(format_align(payload, FORMAT_RECORD_ALIGN) - payload));
    return code == OMENDB_OK ? wal_gather_flush(&gather) : code;
}

/* Takes back what a failed append may have written; the sentence of the failure stays. */
static int wal_cut(struct wal *wal, int code)
{
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof text, "%s", error_text());
    if (storage_truncate(wal->storage, &wal->file, wal->length) != OMENDB_OK) {
        atomic_store_explicit(&wal->poisoned, 1, memory_order_release);
        return error_set(OMENDB_POISONED,
                         "%.400s; then the log could not be cut: close and reopen the database",
                         text);
    }
    uint64_t reserved = wal->allocated;
    wal->allocated = wal->written = wal->length;
    wal_reserve(wal, reserved);
    return error_adopt(code, text);
}

/* Doubles up to steps of 4 MiB, so that a database of a few records does not take megabytes. */
static void wal_extend(struct wal *wal, uint64_t end)
{
    if (end <= wal->allocated)
        return;
    uint64_t step = wal->allocated < WAL_STEP_BYTES ? wal->allocated : WAL_STEP_BYTES;
    uint64_t wanted = wal->allocated + step;
    wal_reserve(wal, format_align(wanted < end ? end : wanted, WAL_PAGE_BYTES));
}

/* A record that lands on blocks which were only reserved makes its sync commit a change of the file
 * system's metadata, a second write with a flush of its own; one that lands on written blocks does
 * not. So many small records share one write of zeros. Large ones would write everything twice.
 * Like reserving it is a kindness, which may fail. */
static void wal_write_ahead(struct wal *wal, uint64_t end)
{
    if (end <= wal->written || end - wal->length > WAL_AHEAD_RECORD ||
        wal->storage->sync != OMENDB_SYNC_FULL)
        return;
    uint64_t until = format_align(end + WAL_AHEAD_BYTES, WAL_PAGE_BYTES);
    until = until < wal->allocated ? until : wal->allocated;
    memset(wal->buffer, 0, WAL_BUFFER_BYTES);
    for (uint64_t at = end; at < until;) {
        size_t size = until - at < WAL_BUFFER_BYTES ? (size_t)(until - at) : WAL_BUFFER_BYTES;
        if (storage_write(wal->storage, &wal->file, at, wal->buffer, size) != OMENDB_OK)
            break;
        at += size;
    }
    wal->written = until;
}

static int wal_payload_bytes(const struct wal *wal, const struct wal_piece *pieces,
                             size_t piece_count, uint64_t *payload)
{
    uint64_t total = 0;
    for (size_t i = 0; i < piece_count; i++) {
        if (pieces[i].size > UINT32_MAX - total)
            return error_set(OMENDB_TOOBIG,
                             "%s: a commit of more than %" PRIu32 " bytes; use smaller batches",
                             wal->file.name, UINT32_MAX);
        total += pieces[i].size;
    }
    *payload = total;
    return OMENDB_OK;
}

OMENDB_INTERNAL int wal_append(struct wal *wal, uint64_t sequence, uint32_t type,
                               const struct wal_piece *pieces, size_t piece_count)
{
    uint8_t header[FORMAT_RECORD_BYTES];
    uint64_t payload = 0;
    assert(sequence == wal->next_sequence);
    if (atomic_load_explicit(&wal->poisoned, memory_order_acquire))
        return error_set(OMENDB_POISONED,
                         "%s: an earlier sync or cut failed: close and reopen the database",
                         wal->file.name);
    int code = wal_payload_bytes(wal, pieces, piece_count, &payload);
    if (code != OMENDB_OK)
        return code;
    wal_record_header(wal, sequence, type, pieces, piece_count, payload, header);
    uint64_t end = wal->length + wal_record_bytes(payload);
    wal_extend(wal, end);
    wal_write_ahead(wal, end);
    code = wal_write_record(wal, header, pieces, piece_count, payload);
    if (code != OMENDB_OK)
        return wal_cut(wal, code);
    wal->length = end;
    wal->next_sequence = sequence + 1;
    if (wal->allocated < end)
        wal->allocated = end;
    if (wal->written < end)
        wal->written = end;
    return OMENDB_OK;
}

OMENDB_INTERNAL int wal_sync(struct wal *wal)
{
    int code = storage_sync(wal->storage, &wal->file);
    if (code != OMENDB_OK)
        atomic_store_explicit(&wal->poisoned, 1, memory_order_release);
    return code;
}

OMENDB_INTERNAL void wal_set_durable(struct wal *wal, uint64_t length)
{
    uint64_t known = atomic_load_explicit(&wal->durable_upto, memory_order_relaxed);
    while (known < length &&
           !atomic_compare_exchange_weak_explicit(&wal->durable_upto, &known, length,
                                                  memory_order_release, memory_order_relaxed)) {
    }
}

OMENDB_INTERNAL int wal_close(struct wal *wal)
{
    if (wal->storage == NULL)
        return OMENDB_OK;
    memory_free(wal->storage->memory, wal->buffer, WAL_BUFFER_BYTES);
    wal->buffer = NULL;
    /* What was reserved in vain; where it cannot be given back the zeros do no harm. */
    if (wal->allocated > wal->length && !atomic_load_explicit(&wal->poisoned, memory_order_acquire))
        (void)storage_truncate(wal->storage, &wal->file, wal->length);
    wal->allocated = 0;
    return storage_close(wal->storage, &wal->file);
}

/* ------------------------------------------------------------------------------------------------
 * reading */

/* Pages that the device does not give. Their bytes count as zeros. */
struct wal_unreadable {
    uint64_t *bits; /* one a page; NULL: all were read so far */
    size_t words;
    void (*report)(void *context, const char *sentence); /* about the first page of each run */
    void *context;
};

/* A window of the file in memory. */
struct wal_reader {
    struct storage *storage;
    struct storage_file file;
    uint64_t size; /* of the file; under a live reader it may shrink */
    int live;
    uint8_t *buffer;
    size_t capacity;
    uint64_t start; /* the window: [start, start + filled) */
    size_t filled;
    uint64_t log_id;
    uint64_t first_sequence;
    struct wal_unreadable *unreadable; /* NULL: a read that fails ends the reading */
};

/* What the search gives back instead of a view when a writer cut the file: there is nothing at that
 * place. */
#define WAL_GONE OMENDB_DONE

/* A record that was found valid. */
struct wal_frame {
    uint64_t total; /* with header and padding; 0: not valid */
    uint64_t sequence;
    uint64_t log_id;
    uint64_t durable_upto;
    uint32_t type;
    uint32_t payload;
};

static int wal_reader_grow(struct wal_reader *reader, size_t capacity)
{
    if (capacity <= reader->capacity)
        return OMENDB_OK;
    memory_free(reader->storage->memory, reader->buffer, reader->capacity);
    reader->filled = 0;
    reader->capacity = 0;
    reader->buffer = memory_alloc(reader->storage->memory, capacity);
    if (reader->buffer == NULL)
        return OMENDB_NOMEM;
    reader->capacity = capacity;
    return OMENDB_OK;
}

/* After a read of [offset, end) failed. OMENDB_OK: a writer in another process has cut the file
 * since, mostly to give back what it had reserved, but [offset, needed) is still there. WAL_GONE:
 * it is not, and the log was being written. */
static int wal_reader_cut(struct wal_reader *reader, uint64_t needed, uint64_t end, int code)
{
    uint64_t size;
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof text, "%s", error_text());
    if (storage_size(reader->storage, &reader->file, &size) != OMENDB_OK || size >= end ||
        (size < needed && !reader->live))
        return error_adopt(code, text);
    reader->size = size;
    return size < needed ? WAL_GONE : OMENDB_OK;
}

/* Reads a piece of one page; a page that was not readable before is not asked for again. */
static int wal_reader_fill_piece(struct wal_reader *reader, uint64_t offset, uint8_t *to,
                                 size_t size)
{
    struct wal_unreadable *unreadable = reader->unreadable;
    uint64_t page = offset / WAL_PAGE_BYTES, bit = UINT64_C(1) << (page & 63);
    uint64_t *word = &unreadable->bits[page >> 6];
    if ((*word & bit) == 0) {
        int code = storage_read(reader->storage, &reader->file, offset, to, size);
        if (code == OMENDB_OK || code == OMENDB_NOMEM)
            return code;
        *word |= bit;
        if (page == 0 || (unreadable->bits[(page - 1) >> 6] >> ((page - 1) & 63) & 1) == 0)
            unreadable->report(unreadable->context, error_text());
    }
    memset(to, 0, size);
    return OMENDB_OK;
}

/* After a read of the window [offset, offset + length) failed: what the device gives of it. */
static int wal_reader_fill_pieces(struct wal_reader *reader, uint64_t offset, size_t length)
{
    struct wal_unreadable *unreadable = reader->unreadable;
    if (unreadable->bits == NULL) {
        unreadable->words = (size_t)(reader->size / WAL_PAGE_BYTES / 64) + 1;
        unreadable->bits =
            memory_zalloc(reader->storage->memory, unreadable->words * sizeof(uint64_t));
        if (unreadable->bits == NULL)
            return OMENDB_NOMEM;
    }
    for (size_t at = 0, size; at < length; at += size) {
        size = WAL_PAGE_BYTES - (size_t)((offset + at) % WAL_PAGE_BYTES);
        size = size < length - at ? size : length - at;
        int code = wal_reader_fill_piece(reader, offset + at, reader->buffer + at, size);
        if (code != OMENDB_OK)
            return code;
    }
    reader->start = offset;
    reader->filled = length;
    return OMENDB_OK;
}

/* Reads a window that begins at `offset` and has `length` bytes at least. Ends, as the file is
 * smaller at each turn. */
static int wal_reader_fill(struct wal_reader *reader, uint64_t offset, size_t length)
{
    for (;;) {
        uint64_t rest = reader->size - offset;
        size_t wanted = rest < reader->capacity ? (size_t)rest : reader->capacity;
        reader->filled = 0;
        int code = storage_read(reader->storage, &reader->file, offset, reader->buffer, wanted);
        if (code == OMENDB_OK) {
            reader->start = offset;
            reader->filled = wanted;
            return OMENDB_OK;
        }
        code = wal_reader_cut(reader, offset + length, offset + wanted, code);
        if (code != OMENDB_OK && code != OMENDB_NOMEM && reader->unreadable != NULL)
            return wal_reader_fill_pieces(reader, offset, wanted);
        if (code != OMENDB_OK)
            return code;
    }
}

/* Gives [offset, offset + length), which lies inside the file, until the next call. The pointer is
 * aligned to 8 if offset is. */
static int wal_reader_view(struct wal_reader *reader, uint64_t offset, size_t length,
                           const uint8_t **bytes)
{
    if (offset < reader->start || offset - reader->start > reader->filled ||
        length > reader->filled - (size_t)(offset - reader->start)) {
        int code = wal_reader_grow(reader, length);
        if (code == OMENDB_OK)
            code = wal_reader_fill(reader, offset, length);
        if (code != OMENDB_OK)
            return code;
    }
    *bytes = reader->buffer + (size_t)(offset - reader->start);
    return OMENDB_OK;
}

/* CRC32C of [offset, end) continued from `crc`, a window at a time. */
static int wal_reader_checksum(struct wal_reader *reader, uint64_t offset, uint64_t end,
                               uint32_t *crc)
{
    while (offset < end) {
        const uint8_t *bytes;
        size_t piece = end - offset < reader->capacity ? (size_t)(end - offset) : reader->capacity;
        int code = wal_reader_view(reader, offset, piece, &bytes);
        if (code != OMENDB_OK)
            return code;
        *crc = checksum_crc32c(*crc, bytes, piece);
        offset += piece;
    }
    return OMENDB_OK;
}

/* The fields of a record's header at `offset`, if they can be those of a record of this log (log id
 * 0: of any). */
static void wal_parse_header(const struct wal_reader *reader, uint64_t offset,
                             const uint8_t *header, struct wal_frame *frame)
{
    uint64_t log_id = format_get64(header + FORMAT_RECORD_LOG_ID);
    frame->sequence = format_get64(header + FORMAT_RECORD_SEQUENCE);
    frame->log_id = log_id;
    frame->durable_upto = format_get64(header + FORMAT_RECORD_DURABLE);
    frame->type = format_get32(header + FORMAT_RECORD_TYPE);
    frame->payload = format_get32(header + FORMAT_RECORD_LENGTH);
    frame->total = wal_record_bytes(frame->payload);
    if (log_id == 0 || (reader->log_id != 0 && log_id != reader->log_id) ||
        frame->total > reader->size - offset || frame->durable_upto > offset ||
        format_get32(header + FORMAT_RECORD_ZERO) != 0)
        frame->total = 0;
}

/* Looks whether a valid record stands at `offset`: frame->total is 0 if not. whole: its payload can
 * be viewed afterwards without reading again; the window grows to it, which the file's size bounds.
 * *claimed: bytes that had to be looked at. */
static int wal_check(struct wal_reader *reader, uint64_t offset, int whole, struct wal_frame *frame,
                     uint64_t *claimed)
{
    const uint8_t *bytes;
    uint8_t header[FORMAT_RECORD_BYTES];
    memset(frame, 0, sizeof *frame);
    if (offset > reader->size || reader->size - offset < FORMAT_RECORD_BYTES)
        return OMENDB_OK;
    int code = wal_reader_view(reader, offset, sizeof header, &bytes);
    if (code != OMENDB_OK)
        return code;
    memcpy(header, bytes, sizeof header);
    wal_parse_header(reader, offset, header, frame);
    if (frame->total == 0)
        return OMENDB_OK;
    *claimed += frame->total;
    if (whole)
        code = wal_reader_view(reader, offset, (size_t)frame->total, &bytes);
    uint32_t crc = checksum_crc32c(0, header, FORMAT_RECORD_CRC);
    crc = checksum_crc32c(crc, header + FORMAT_RECORD_SEQUENCE,
                          sizeof header - FORMAT_RECORD_SEQUENCE);
    if (code == OMENDB_OK)
        code = wal_reader_checksum(reader, offset + sizeof header, offset + frame->total, &crc);
    if (code == OMENDB_OK && crc != format_get32(header + FORMAT_RECORD_CRC))
        frame->total = 0;
    return code;
}

/* What the search behind a bad record found. */
struct wal_search {
    int vouched;      /* a valid record knows the place to have been durable */
    int nonzero;      /* something other than preallocated zeros is there */
    uint64_t claimed; /* bytes of candidates */
};

/* Looks at the multiples of 8 from *offset within the window; stops at what may be a record. */
static int wal_search_window(struct wal_reader *reader, uint64_t *offset, struct wal_search *search,
                             int *candidate)
{
    const uint8_t *bytes;
    uint64_t rest = reader->size - *offset, end = reader->start + reader->filled;
    size_t length = rest < reader->capacity ? (size_t)rest : reader->capacity, at = 0;
    /* What is left of the window, as long as a record may begin in it: not to read one anew behind
     * each candidate. */
    if (*offset >= reader->start && *offset < end && end - *offset >= FORMAT_RECORD_BYTES)
        length = (size_t)(end - *offset);
    int code = wal_reader_view(reader, *offset, length, &bytes);
    *candidate = 0;
    if (code != OMENDB_OK)
        return code;
    while (at + FORMAT_RECORD_BYTES <= length && !*candidate) {
        uint64_t log_id = format_get64(bytes + at + FORMAT_RECORD_LOG_ID);
        search->nonzero |= format_get64(bytes + at) != 0;
        *candidate = reader->log_id != 0 ? log_id == reader->log_id : log_id != 0;
        at += *candidate ? 0 : FORMAT_RECORD_ALIGN;
    }
    *offset += at;
    if (length == rest && !*candidate) { /* less than a record is left */
        search->nonzero |= !format_is_zero(bytes + at, length - at);
        *offset = reader->size;
    }
    return OMENDB_OK;
}

/* Searches behind `bad` for a valid record that says that `bad` was durable. */
static int wal_search_behind(struct wal_reader *reader, uint64_t bad, struct wal_search *search)
{
    uint64_t offset = bad, allowed = 2 * (reader->size - bad) + WAL_WINDOW_BYTES;
    memset(search, 0, sizeof *search);
    while (offset < reader->size) {
        struct wal_frame frame;
        int candidate;
        int code = wal_search_window(reader, &offset, search, &candidate);
        if (code == OMENDB_OK && candidate) {
            code = wal_check(reader, offset, 0, &frame, &search->claimed);
            if (code == OMENDB_OK && frame.total != 0 && frame.durable_upto > bad)
                search->vouched = 1;
            search->nonzero = 1;
            offset += frame.total != 0 ? frame.total : FORMAT_RECORD_ALIGN;
        }
        if (code != OMENDB_OK)
            return code;
        if (search->vouched)
            return OMENDB_OK;
        if (search->claimed > allowed)
            return error_set(OMENDB_CORRUPT,
                             "%s: after offset %" PRIu64
                             " there are more damaged records than a crash leaves"
                             "; " ERROR_RESTORE,
                             reader->file.name, bad);
    }
    return OMENDB_OK;
}

static int wal_corrupt(const struct wal_reader *reader, uint64_t offset, const char *why)
{
    return error_set(OMENDB_CORRUPT,
                     "%s: record at offset %" PRIu64 " is damaged although %s; " ERROR_RESTORE,
                     reader->file.name, offset, why);
}

/* The header is bad or was never written. If nothing in the file says that it was durable, the log
 * was never begun. */
static int wal_header_missing(struct wal_reader *reader, struct wal_replay *replay)
{
    struct wal_search search;
    if (replay->final_length != WAL_LENGTH_UNKNOWN)
        return error_set(OMENDB_CORRUPT, "%s: header (offset 0) is damaged; " ERROR_RESTORE,
                         reader->file.name);
    int code = wal_search_behind(reader, 0, &search);
    if (code != OMENDB_OK)
        return code == WAL_GONE
                   ? error_set(OMENDB_NOTFOUND, "%s was never completed", reader->file.name)
                   : code;
    if (search.vouched)
        return error_set(OMENDB_CORRUPT, "%s: header (offset 0) is damaged; " ERROR_RESTORE,
                         reader->file.name);
    replay->torn = search.nonzero;
    return error_set(OMENDB_NOTFOUND,
                     "%s was never completed: it has no header and nothing durable",
                     reader->file.name);
}

static int wal_read_header(struct wal_reader *reader, struct wal_replay *replay)
{
    const uint8_t *header = NULL;
    int code = OMENDB_OK;
    if (reader->size < FORMAT_HEADER_BYTES)
        return wal_header_missing(reader, replay);
    code = wal_reader_view(reader, 0, FORMAT_HEADER_BYTES, &header);
    if (code != OMENDB_OK)
        return code == WAL_GONE
                   ? error_set(OMENDB_NOTFOUND, "%s was never completed", reader->file.name)
                   : code;
    code = storage_header_check(reader->file.name, header, FORMAT_MAGIC_WAL);
    if (code == OMENDB_FORMAT)
        return code;
    if (code != OMENDB_OK)
        return wal_header_missing(reader, replay);
    reader->log_id = format_get64(header + FORMAT_WAL_LOG_ID);
    reader->first_sequence = format_get64(header + FORMAT_WAL_FIRST_SEQUENCE);
    replay->log_id = reader->log_id;
    replay->predecessor = format_get64(header + FORMAT_WAL_PREDECESSOR);
    replay->predecessor_length = format_get64(header + FORMAT_WAL_PREDECESSOR_LENGTH);
    if (reader->log_id == 0)
        return error_set(OMENDB_CORRUPT, "%s: header (offset 0) names no log; " ERROR_RESTORE,
                         reader->file.name);
    return OMENDB_OK;
}

/* Where reading starts and which sequence it expects (0 after a start_offset: any). */
static int wal_begin(struct wal_reader *reader, struct wal_replay *replay)
{
    replay->next_sequence = replay->first_sequence;
    replay->end = replay->start_offset;
    if (replay->start_offset == 0) {
        if (replay->first_sequence != 0 && replay->first_sequence != reader->first_sequence)
            return error_set(OMENDB_CORRUPT,
                             "%s: begins with commit %" PRIu64 ", but %" PRIu64
                             " must follow; " ERROR_RESTORE,
                             reader->file.name, reader->first_sequence, replay->first_sequence);
        replay->next_sequence = reader->first_sequence;
        replay->end = FORMAT_HEADER_BYTES;
    }
    if (replay->final_length != WAL_LENGTH_UNKNOWN &&
        (replay->final_length > reader->size || replay->final_length < replay->end))
        return error_set(OMENDB_CORRUPT,
                         "%s: has %" PRIu64 " bytes, but %" PRIu64 " were durable; " ERROR_RESTORE,
                         reader->file.name, reader->size, replay->final_length);
    if (replay->end % FORMAT_RECORD_ALIGN != 0 || replay->end > reader->size)
        return error_set(OMENDB_CORRUPT,
                         "%s: has %" PRIu64 " bytes; reading cannot go on at offset %" PRIu64
                         "; reopen the database",
                         reader->file.name, reader->size, replay->end);
    return OMENDB_OK;
}

/* wal_check, and the sequence must be the expected one. A file that was cut has no record there. */
static int wal_check_next(struct wal_reader *reader, uint64_t offset, uint64_t sequence, int whole,
                          struct wal_frame *frame)
{
    uint64_t claimed = 0;
    int code = wal_check(reader, offset, whole, frame, &claimed);
    if (code == WAL_GONE) {
        frame->total = 0;
        return OMENDB_OK;
    }
    if (sequence != 0 && frame->sequence != sequence)
        frame->total = 0;
    return code;
}

/* Decides what a bad record at `offset` is. Under a live reader the writer may have completed it
 * meanwhile: *again asks to look once more, at bytes that must now be whole, as they were synced
 * before the record was written that vouches for them. */
static int wal_judge(struct wal_reader *reader, uint64_t offset, int retried, int *torn, int *again)
{
    struct wal_search search;
    *again = 0;
    int code = wal_search_behind(reader, offset, &search);
    if (code != OMENDB_OK)
        return code == WAL_GONE ? OMENDB_OK : code;
    *torn = search.nonzero && !reader->live;
    if (!search.vouched)
        return OMENDB_OK;
    if (!reader->live || retried)
        return wal_corrupt(reader, offset, "a later one says that it was on the device");
    reader->filled = 0;
    *again = 1;
    return OMENDB_OK;
}

/* Whole records end at `offset`; they were read before this sync, so when it succeeds they are on
 * the device. A reader of read-only media may not sync, and goes by what the records say. */
static void wal_make_durable(struct wal_reader *reader, uint64_t offset, uint64_t *durable)
{
    const omendb_vfs *vfs = reader->storage->vfs;
    if (offset > *durable && vfs->sync(vfs->context, reader->file.handle) == OMENDB_OK)
        *durable = offset;
}

/* For a live reader: how far the log is known to be durable, by what its records say or by a sync.
 */
static int wal_find_durable(struct wal_reader *reader, const struct wal_replay *replay,
                            uint64_t *durable)
{
    uint64_t offset = replay->end, sequence = replay->next_sequence, retried = 0;
    *durable = replay->end;
    for (;;) {
        struct wal_frame frame;
        int torn, again, code = wal_check_next(reader, offset, sequence, 0, &frame);
        if (code != OMENDB_OK)
            return code;
        if (frame.total == 0) {
            code = wal_judge(reader, offset, retried == offset, &torn, &again);
            if (code == OMENDB_OK && !again && replay->may_sync)
                wal_make_durable(reader, offset, durable);
            if (code != OMENDB_OK || !again)
                return code;
            retried = offset;
            continue;
        }
        if (frame.durable_upto > *durable)
            *durable = frame.durable_upto;
        sequence = frame.sequence + 1;
        offset += frame.total;
    }
}

static int wal_deliver(struct wal_reader *reader, uint64_t offset, const struct wal_frame *frame,
                       int (*deliver)(void *context, const struct wal_record *record),
                       void *context)
{
    struct wal_record record = {frame->sequence, offset, frame->type, frame->payload, NULL};
    int code =
        wal_reader_view(reader, offset + FORMAT_RECORD_BYTES, frame->payload, &record.payload);
    return code == OMENDB_OK ? deliver(context, &record) : code;
}

/* Delivers records that end at or before `limit`, up to the first that is not valid; *bad tells
 * that there was one. */
static int wal_deliver_all(struct wal_reader *reader, struct wal_replay *replay, uint64_t limit,
                           int *bad, int (*deliver)(void *context, const struct wal_record *record),
                           void *context)
{
    *bad = 0;
    while (replay->end < limit) {
        struct wal_frame frame;
        int code = wal_check_next(reader, replay->end, replay->next_sequence, 1, &frame);
        if (code == OMENDB_OK && (frame.total == 0 || frame.total > limit - replay->end)) {
            *bad = 1;
            return OMENDB_OK;
        }
        if (code == OMENDB_OK)
            code = wal_deliver(reader, replay->end, &frame, deliver, context);
        if (code != OMENDB_OK)
            return code;
        replay->end += frame.total;
        replay->next_sequence = frame.sequence + 1;
    }
    return OMENDB_OK;
}

static int wal_read_opened(struct wal_reader *reader, struct wal_replay *replay,
                           int (*deliver)(void *context, const struct wal_record *record),
                           void *context)
{
    uint64_t limit = replay->final_length;
    int known = limit != WAL_LENGTH_UNKNOWN, bad = 0, again;
    int code = wal_read_header(reader, replay);
    if (code == OMENDB_OK)
        code = wal_begin(reader, replay);
    if (code == OMENDB_OK && !known && replay->live_reader)
        code = wal_find_durable(reader, replay, &limit);
    if (code == OMENDB_OK && !known && !replay->live_reader)
        limit = reader->size;
    if (code == OMENDB_OK)
        code = wal_deliver_all(reader, replay, limit, &bad, deliver, context);
    if (code == OMENDB_OK && bad && known)
        code = wal_corrupt(reader, replay->end, "it lies below the log's known length");
    if (code == OMENDB_OK && bad && !known && !replay->live_reader)
        code = wal_judge(reader, replay->end, 1, &replay->torn, &again);
    return code;
}

/* Opens the file and makes the window. The caller frees the buffer and closes, also on failure. */
static int wal_reader_open(struct storage *storage, uint64_t number, struct wal_reader *reader)
{
    char name[STORAGE_NAME_BYTES];
    memset(reader, 0, sizeof *reader);
    reader->storage = storage;
    storage_name(STORAGE_WAL, number, name);
    int code = storage_open(storage, name, OMENDB_OPEN_READ, &reader->file);
    if (code == OMENDB_OK)
        code = storage_size(storage, &reader->file, &reader->size);
    if (code != OMENDB_OK)
        return code;
    size_t capacity = reader->size < WAL_WINDOW_BYTES ? (size_t)reader->size : WAL_WINDOW_BYTES;
    return wal_reader_grow(reader, capacity < FORMAT_HEADER_BYTES ? FORMAT_HEADER_BYTES : capacity);
}

/* Nothing was written: a failure to close cannot lose anything. */
static void wal_reader_close(struct wal_reader *reader)
{
    memory_free(reader->storage->memory, reader->buffer, reader->capacity);
    storage_close(reader->storage, &reader->file);
}

OMENDB_INTERNAL int wal_read(struct storage *storage, struct wal_replay *replay,
                             int (*deliver)(void *context, const struct wal_record *record),
                             void *context)
{
    struct wal_reader reader;
    replay->end = replay->start_offset;
    replay->next_sequence = replay->first_sequence;
    replay->predecessor = replay->predecessor_length = replay->log_id = 0;
    replay->torn = 0;
    int code = wal_reader_open(storage, replay->number, &reader);
    reader.live = replay->live_reader;
    if (code == OMENDB_OK)
        code = wal_read_opened(&reader, replay, deliver, context);
    wal_reader_close(&reader);
    return code;
}

/* ------------------------------------------------------------------------------------------------
 * reading what is left of a damaged log */

struct wal_salvage {
    struct wal_reader reader;
    struct wal_unreadable unreadable;
    uint64_t offset;   /* read up to here */
    uint64_t sequence; /* of the last record that was delivered, 0: none */
    uint64_t bad;      /* where the run of bytes that are no records began; 0: there is none */
    uint64_t claimed;  /* bytes of candidates that were none */
    int nonzero;       /* the run is more than what was reserved */
    void (*report)(void *context, const char *sentence);
    void *context;
};

static void wal_salvage_report_gap(struct wal_salvage *salvage, uint64_t next)
{
    const char *name = salvage->reader.file.name;
    uint64_t bytes = salvage->offset - salvage->bad;
    if (next == 0)
        error_set(OMENDB_CORRUPT,
                  "%s: offset %" PRIu64 ": %" PRIu64 " bytes up to the end are no records: what "
                  "was committed after commit %" PRIu64 ", or a commit that was never finished",
                  name, salvage->bad, bytes, salvage->sequence);
    else if (salvage->sequence == 0)
        error_set(OMENDB_CORRUPT,
                  "%s: offset %" PRIu64 ": %" PRIu64
                  " bytes are damaged: commits before commit %" PRIu64 " are lost",
                  name, salvage->bad, bytes, next);
    else
        error_set(OMENDB_CORRUPT,
                  "%s: offset %" PRIu64 ": %" PRIu64 " bytes are damaged: %" PRIu64
                  " commits between commit %" PRIu64 " and commit %" PRIu64 " are lost",
                  name, salvage->bad, bytes, next - salvage->sequence - 1, salvage->sequence, next);
    salvage->report(salvage->context, error_text());
}

/* OMENDB_DONE where no byte is but zeros. */
static int wal_salvage_blank(struct wal_salvage *salvage)
{
    struct wal_reader *reader = &salvage->reader;
    const uint8_t *bytes;
    for (uint64_t at = 0; at < reader->size; at += FORMAT_RECORD_ALIGN) {
        const uint64_t left = reader->size - at;
        const size_t some = left < FORMAT_RECORD_ALIGN ? (size_t)left : FORMAT_RECORD_ALIGN;
        int code = wal_reader_view(reader, at, some, &bytes);
        if (code != OMENDB_OK)
            return code;
        for (size_t i = 0; i < some; i++) {
            if (bytes[i] != 0 || salvage->unreadable.bits != NULL)
                return OMENDB_OK;
        }
    }
    return OMENDB_DONE;
}

/* Tells the log id, or leaves 0. */
static int wal_salvage_header(struct wal_salvage *salvage)
{
    struct wal_reader *reader = &salvage->reader;
    const uint8_t *header = NULL;
    int code = OMENDB_CORRUPT;
    if (reader->size >= FORMAT_HEADER_BYTES) {
        code = wal_reader_view(reader, 0, FORMAT_HEADER_BYTES, &header);
        if (code != OMENDB_OK)
            return code;
        code = storage_header_check(reader->file.name, header, FORMAT_MAGIC_WAL);
    }
    if (code == OMENDB_FORMAT)
        return code;
    if (code == OMENDB_OK)
        reader->log_id = format_get64(header + FORMAT_WAL_LOG_ID);
    code = reader->log_id != 0 ? OMENDB_OK : wal_salvage_blank(salvage);
    if (code != OMENDB_OK || reader->log_id != 0)
        return code;
    if (reader->size < FORMAT_HEADER_BYTES)
        error_set(OMENDB_CORRUPT,
                  "%s: has %" PRIu64 " bytes, fewer than its header: nothing of "
                  "it can be read",
                  reader->file.name, reader->size);
    else
        error_set(OMENDB_CORRUPT,
                  "%s: header (offset 0) is damaged; its records are taken as they are",
                  reader->file.name);
    salvage->report(salvage->context, error_text());
    return OMENDB_OK;
}

/* A valid record at `offset` of a log whose id is not known, or frame->total is 0. Lists of ids,
 * and vectors of small numbers, look like headers of records in all that wal_parse_header asks for,
 * at thousands of places; so here the type must be known, too, before bytes are looked at. */
static int wal_salvage_guess(struct wal_salvage *salvage, uint64_t offset, struct wal_frame *frame)
{
    const uint8_t *header;
    uint64_t claimed = 0;
    memset(frame, 0, sizeof *frame);
    int code = wal_reader_view(&salvage->reader, offset, FORMAT_RECORD_BYTES, &header);
    if (code != OMENDB_OK)
        return code;
    salvage->nonzero |= format_get64(header) != 0;
    if (format_get32(header + FORMAT_RECORD_TYPE) != WAL_COMMIT ||
        format_get64(header + FORMAT_RECORD_SEQUENCE) == 0 ||
        format_get64(header + FORMAT_RECORD_DURABLE) % FORMAT_RECORD_ALIGN != 0)
        return OMENDB_OK;
    code = wal_check(&salvage->reader, offset, 0, frame, &claimed);
    salvage->claimed += frame->total == 0 ? claimed : 0;
    return code;
}

/* Without its header a log has the id that most bytes of valid records name: not that of the first
 * one, as the payload of a damaged record may hold one of another log. The vote of Boyer and Moore
 * is over when nothing that may follow can turn it. */
static int wal_salvage_learn(struct wal_salvage *salvage)
{
    struct wal_reader *reader = &salvage->reader;
    const uint64_t allowed = WAL_PATIENCE_NAMELESS * (reader->size + WAL_WINDOW_BYTES);
    uint64_t offset = FORMAT_HEADER_BYTES, id = 0, lead = 0;
    int code = OMENDB_OK;
    while (code == OMENDB_OK && reader->size >= offset + FORMAT_RECORD_BYTES &&
           lead <= reader->size - offset && salvage->claimed <= allowed) {
        struct wal_frame frame;
        code = wal_salvage_guess(salvage, offset, &frame);
        if (frame.log_id == id) {
            lead += frame.total;
        } else if (frame.total <= lead) {
            lead -= frame.total;
        } else {
            id = frame.log_id;
            lead = frame.total - lead;
        }
        offset += frame.total != 0 ? frame.total : FORMAT_RECORD_ALIGN;
    }
    reader->log_id = id;
    salvage->claimed = 0;
    return code;
}

/* A valid record at salvage->offset, or frame->total is 0. */
static int wal_salvage_check(struct wal_salvage *salvage, struct wal_frame *frame)
{
    uint64_t claimed = 0;
    int code = wal_check(&salvage->reader, salvage->offset, 0, frame, &claimed);
    /* One that is larger than the window is read again for its payload: the bytes that are
     * delivered are those that were checked. */
    if (code == OMENDB_OK && frame->total > salvage->reader.capacity)
        code = wal_check(&salvage->reader, salvage->offset, 1, frame, &claimed);
    if (frame->total != 0 && frame->sequence <= salvage->sequence)
        frame->total = 0;
    salvage->claimed += frame->total == 0 ? claimed : 0;
    return code;
}

/* Goes on to what may be a record, from a place where none is. */
static int wal_salvage_seek(struct wal_salvage *salvage)
{
    struct wal_search search = {0};
    int candidate = 0, code = OMENDB_OK;
    salvage->bad = salvage->bad == 0 ? salvage->offset : salvage->bad;
    while (salvage->offset < salvage->reader.size && !candidate && code == OMENDB_OK)
        code = wal_search_window(&salvage->reader, &salvage->offset, &search, &candidate);
    salvage->nonzero |= search.nonzero;
    return code;
}

static int wal_salvage_deliver(struct wal_salvage *salvage, const struct wal_frame *frame,
                               int (*deliver)(void *context, const struct wal_record *record))
{
    if (salvage->bad != 0)
        wal_salvage_report_gap(salvage, frame->sequence);
    int code = wal_deliver(&salvage->reader, salvage->offset, frame, deliver, salvage->context);
    salvage->sequence = frame->sequence;
    salvage->offset += frame->total;
    salvage->bad = 0;
    salvage->nonzero = 0;
    return code;
}

/* From the offset to the next record, or one step behind what was taken for one. */
static int wal_salvage_step(struct wal_salvage *salvage,
                            int (*deliver)(void *context, const struct wal_record *record))
{
    struct wal_frame frame;
    uint64_t at = salvage->offset;
    int code = wal_salvage_check(salvage, &frame);
    if (code != OMENDB_OK)
        return code;
    if (frame.total != 0)
        return wal_salvage_deliver(salvage, &frame, deliver);
    code = wal_salvage_seek(salvage);
    if (code != OMENDB_OK || salvage->offset != at)
        return code;
    /* A candidate that is none must not be found again. */
    salvage->nonzero = 1;
    salvage->offset += FORMAT_RECORD_ALIGN;
    return wal_salvage_seek(salvage);
}

/* Whether the run of bytes that are no records, up to the end, may have held some. */
static int wal_salvage_lost_the_end(const struct wal_salvage *salvage)
{
    const struct wal_unreadable *unreadable = &salvage->unreadable;
    int lost = salvage->nonzero || salvage->offset < salvage->reader.size;
    for (uint64_t page = salvage->bad / WAL_PAGE_BYTES;
         unreadable->bits != NULL && page / 64 < unreadable->words; page++)
        lost |= (int)(unreadable->bits[page / 64] >> (page & 63) & 1);
    return lost;
}

static int wal_salvage_opened(struct wal_salvage *salvage,
                              int (*deliver)(void *context, const struct wal_record *record))
{
    uint64_t size = salvage->reader.size, allowed = WAL_PATIENCE * size + WAL_WINDOW_BYTES;
    salvage->offset = FORMAT_HEADER_BYTES;
    int code = wal_salvage_header(salvage);
    if (code == OMENDB_OK && salvage->reader.log_id == 0) {
        code = wal_salvage_learn(salvage);
        if (salvage->reader.log_id != 0) {
            salvage->nonzero = 0;
        } else if (size > FORMAT_HEADER_BYTES) {
            salvage->bad = FORMAT_HEADER_BYTES;
            salvage->offset = size;
        }
    }
    while (code == OMENDB_OK && salvage->offset < size && salvage->claimed <= allowed)
        code = wal_salvage_step(salvage, deliver);
    if (code == OMENDB_OK && salvage->bad != 0 && wal_salvage_lost_the_end(salvage)) {
        salvage->offset = size;
        wal_salvage_report_gap(salvage, 0);
    }
    return code;
}

OMENDB_INTERNAL int wal_salvage(struct storage *storage, uint64_t number,
                                int (*deliver)(void *context, const struct wal_record *record),
                                void (*report)(void *context, const char *sentence), void *context)
{
    struct wal_salvage salvage = {
        .report = report, .context = context, .unreadable = {NULL, 0, report, context}};
    int code = wal_reader_open(storage, number, &salvage.reader);
    salvage.reader.unreadable = &salvage.unreadable;
    if (code == OMENDB_OK)
        code = wal_salvage_opened(&salvage, deliver);
    memory_free(storage->memory, salvage.unreadable.bits,
                salvage.unreadable.words * sizeof(uint64_t));
    wal_reader_close(&salvage.reader);
    return code;
}

#undef WAL_BUFFER_BYTES
#undef WAL_WINDOW_BYTES
#undef WAL_STEP_BYTES
#undef WAL_PAGE_BYTES
#undef WAL_AHEAD_BYTES
#undef WAL_AHEAD_RECORD
#undef WAL_PATIENCE
#undef WAL_PATIENCE_NAMELESS
#undef WAL_GONE
