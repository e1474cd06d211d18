/* manifest.c: the root, written whole and replaced whole. format.h has the bytes.
 *
 * Invariant: CURRENT names a manifest that was on the device, with its directory entry, before
 * CURRENT was renamed to it. So after a crash CURRENT names the old or the new one, and either is
 * complete:
 *
 *   MANIFEST-n written and synced; CURRENT.tmp written and synced; directory synced (entries of
 * both, and of whatever segments the manifest names); CURRENT.tmp renamed to CURRENT; directory
 * synced.
 *
 * Nothing may be deleted because of a new manifest before the last of these. If that one fails, or
 * the rename fails in a way that does not tell whether it happened, either manifest may be the one
 * after a crash: OMENDB_POISONED, and both files stay. On any other error the old one is the
 * current one, as before.
 *
 * What is read is bounded as it is decoded (counts against the bytes that are left), and then
 * checked as a whole by the same function that looks at a manifest before it is written, so that
 * nothing is written that would be refused.
 *
 * Rejected: appending edits to one manifest file (recovery would have a second log to get right),
 * and an order of files kept by the caller (they are sorted here). */
#include "manifest.h"

#include "checksum.h"
#include "declaration.h"
#include "error.h"
#include "format.h"
#include "memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MANIFEST_CURRENT       "CURRENT"
#define MANIFEST_CURRENT_TMP   "CURRENT.tmp"
#define MANIFEST_CURRENT_BYTES 64 /* more than a name, two newlines and eight digits */
#define MANIFEST_READ_TRIES    8

static void manifest_free_collections(struct memory *memory, struct manifest *manifest)
{
    for (uint32_t i = 0; manifest->collections != NULL && i < manifest->collection_count; i++) {
        struct manifest_collection *collection = &manifest->collections[i];
        memory_free(memory, collection->segments,
                    collection->segment_count * sizeof *collection->segments);
        memory_free(memory, collection->calibration, sizeof *collection->calibration);
        memory_free(memory, collection->declaration, collection->declaration_bytes);
    }
    memory_free(memory, manifest->collections,
                manifest->collection_count * sizeof *manifest->collections);
    manifest->collections = NULL;
}

OMENDB_INTERNAL void manifest_destroy(struct memory *memory, struct manifest *manifest)
{
    manifest_free_collections(memory, manifest);
    memory_free(memory, manifest->packed, manifest->packed_bytes);
    memory_free(memory, manifest->files, manifest->file_count * sizeof *manifest->files);
    memset(manifest, 0, sizeof *manifest);
}

/* ------------------------------------------------------------------------------------------------
 * what a manifest must be, whether it was read or is to be written */

/* One use of a part of a file. */
struct manifest_use {
    uint64_t file;
    uint32_t part;
    uint32_t kind;
};

static int manifest_compare_files(const void *a, const void *b)
{
    uint64_t left = ((const struct manifest_file *)a)->number,
             right = ((const struct manifest_file *)b)->number;
    return (left > right) - (left < right);
}

static int manifest_compare_uses(const void *a, const void *b)
{
    const struct manifest_use *left = a, *right = b;
    if (left->file != right->file)
        return left->file < right->file ? -1 : 1;
    return (left->part > right->part) - (left->part < right->part);
}

/* `code` is OMENDB_CORRUPT for one that was read, OMENDB_MISUSE for one to be written. */
struct manifest_check {
    const struct manifest *manifest;
    const char *name;
    int code;
};

static int manifest_refuse(const struct manifest_check *check, const char *what, const char *why)
{
    return error_set(check->code, "%s: %s %s; %s", check->name, what, why,
                     check->code == OMENDB_CORRUPT ? ERROR_RESTORE : "it was not written");
}

OMENDB_INTERNAL const struct manifest_file *manifest_find_file(const struct manifest *manifest,
                                                               uint64_t number)
{
    for (uint32_t i = 0; i < manifest->file_count; i++) {
        if (manifest->files[i].number == number)
            return &manifest->files[i];
    }
    return NULL;
}

/* Bytes of the character at `at`, of which `left` are there; 0: it is none that names may have. */
static size_t manifest_character(const unsigned char *at, size_t left)
{
    const size_t size = *at < 0x80             ? 1
                        : (*at & 0xe0) == 0xc0 ? 2
                        : (*at & 0xf0) == 0xe0 ? 3
                        : (*at & 0xf8) == 0xf0 ? 4
                                               : 0;
    if (size == 0 || size > left || *at < 0x20 || *at == 0x7f || *at == 0xc0 || *at == 0xc1 ||
        *at > 0xf4)
        return 0;
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    }
    /* Overlong forms, surrogates, and what is beyond U+10FFFF. */
    const int wrong = (*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] >= 0xa0) ||
                      (*at == 0xf0 && at[1] < 0x90) || (*at == 0xf4 && at[1] >= 0x90);
    return wrong ? 0 : size;
}

OMENDB_INTERNAL size_t manifest_name_legal_bytes(const char *name, size_t length)
{
    size_t legal = 0, size = 1;
    for (; legal < length && size != 0; legal += size)
        size = manifest_character((const unsigned char *)name + legal, length - legal);
    return legal;
}

OMENDB_INTERNAL int manifest_name_is_legal(const char name[256])
{
    const char *end = memchr(name, 0, 256);
    const size_t length = end == NULL ? 0 : (size_t)(end - name);
    return length != 0 && manifest_name_legal_bytes(name, length) == length;
}

/* The field that is out of its range, or NULL. */
static const char *manifest_bad_field(const omendb_schema *schema)
{
    if (schema->dim < 1 || schema->dim > 65535)
        return "dim";
    if (schema->metric > OMENDB_HAMMING)
        return "metric";
    if (schema->scalar > OMENDB_B1 ||
        (schema->scalar == OMENDB_B1) != (schema->metric == OMENDB_HAMMING))
        return "scalar";
    if (!isfinite(schema->scale) || schema->scale < 0 || schema->scale > 1e30f ||
        (schema->scale == 0 && (schema->scalar == OMENDB_I8 || schema->scalar == OMENDB_U8)))
        return "scale";
    if (schema->M < 2 || schema->M > 256)
        return "M";
    if (schema->ef_construction < 8 || schema->ef_construction > 10000)
        return "ef_construction";
    return schema->ef < 1 || schema->ef > 100000 ? "ef" : NULL;
}

static int manifest_check_files(const struct manifest_check *check)
{
    const struct manifest *manifest = check->manifest;
    for (uint32_t i = 0; i < manifest->file_count; i++) {
        const struct manifest_file *file = &manifest->files[i];
        char what[64];
        snprintf(what, sizeof what, "file %" PRIu64, file->number);
        if (i > 0 && file->number <= manifest->files[i - 1].number)
            return manifest_refuse(check, what, "occurs twice or out of order");
        if (file->kind != STORAGE_SEGMENT && file->kind != STORAGE_OVERLAY)
            return manifest_refuse(check, what, "is neither of segments nor of overlays");
        if (file->number >= manifest->next_file)
            return manifest_refuse(check, what, "has a number that was not given out yet");
    }
    return OMENDB_OK;
}

/* Whether the manifest has a file of this number and kind; the files are in order. */
static int manifest_has_file(const struct manifest *manifest, uint64_t number, uint32_t kind)
{
    uint32_t low = 0, high = manifest->file_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (manifest->files[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < manifest->file_count && manifest->files[low].number == number &&
           manifest->files[low].kind == kind;
}

static int manifest_check_collection(const struct manifest_check *check, uint32_t index)
{
    const struct manifest *manifest = check->manifest;
    const struct manifest_collection *collection = &manifest->collections[index];
    char what[64];
    snprintf(what, sizeof what, "collection number %" PRIu32, index);
    if (!manifest_name_is_legal(collection->name))
        return manifest_refuse(
            check, what, "has a name that is empty, too long, not UTF-8 or of control characters");
    if (index > 0 && strcmp(manifest->collections[index - 1].name, collection->name) >= 0)
        return manifest_refuse(check, what, "has the name of another one or stands out of order");
    if (collection->id == 0 || collection->id >= manifest->next_collection)
        return manifest_refuse(check, what, "has an id that was not given out");
    const char *field = manifest_bad_field(&collection->schema);
    if (field != NULL) {
        snprintf(what, sizeof what, "collection number %" PRIu32 ": schema.%s", index, field);
        return manifest_refuse(check, what, "is out of its range");
    }
    if (collection->calibration != NULL && !calibration_is_legal(collection->calibration))
        return manifest_refuse(check, what, "has a curve of recall that does not ascend");
    if (collection->declaration != NULL &&
        declaration_check(collection->declaration, collection->declaration_bytes) != NULL)
        return manifest_refuse(check, what, "has a declaration of fields that makes no sense");
    for (uint32_t i = 0; i < collection->segment_count; i++) {
        const struct manifest_segment *segment = &collection->segments[i];
        if (!manifest_has_file(manifest, segment->file, STORAGE_SEGMENT) ||
            (segment->overlay_file != 0 &&
             !manifest_has_file(manifest, segment->overlay_file, STORAGE_OVERLAY)))
            return manifest_refuse(check, what, "has a segment of a file that is not listed");
    }
    return OMENDB_OK;
}

static int manifest_check_unique_ids(const struct manifest_check *check, struct memory *memory)
{
    const struct manifest *manifest = check->manifest;
    size_t count = manifest->collection_count;
    uint64_t *ids = memory_array(memory, count, sizeof *ids);
    int code = OMENDB_OK;
    if (ids == NULL)
        return OMENDB_NOMEM;
    for (size_t i = 0; i < count; i++)
        ids[i] = manifest->collections[i].id;
    sort_array(ids, count, sizeof *ids, sort_compare_numbers);
    for (size_t i = 1; i < count && code == OMENDB_OK; i++) {
        if (ids[i] == ids[i - 1])
            code = manifest_refuse(check, "an id", "belongs to two collections");
    }
    memory_free(memory, ids, count * sizeof *ids);
    return code;
}

/* No part of a file serves two segments: not as a segment, not as its overlay. */
static int manifest_check_unique_parts(const struct manifest_check *check, struct memory *memory)
{
    const struct manifest *manifest = check->manifest;
    size_t capacity = 0, count = 0;
    for (uint32_t i = 0; i < manifest->collection_count; i++)
        capacity = memory_add(capacity, memory_multiply(manifest->collections[i].segment_count, 2));
    struct manifest_use *uses = memory_array(memory, capacity, sizeof *uses);
    int code = OMENDB_OK;
    if (uses == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < manifest->collection_count; i++) {
        for (uint32_t j = 0; j < manifest->collections[i].segment_count; j++) {
            const struct manifest_segment *segment = &manifest->collections[i].segments[j];
            uses[count++] = (struct manifest_use){segment->file, segment->part, STORAGE_SEGMENT};
            if (segment->overlay_file != 0)
                uses[count++] = (struct manifest_use){segment->overlay_file, segment->overlay_part,
                                                      STORAGE_OVERLAY};
        }
    }
    sort_array(uses, count, sizeof *uses, manifest_compare_uses);
    for (size_t i = 1; i < count && code == OMENDB_OK; i++) {
        if (manifest_compare_uses(&uses[i - 1], &uses[i]) == 0)
            code = manifest_refuse(check, "a part of a file", "belongs to two segments");
    }
    memory_free(memory, uses, capacity * sizeof *uses);
    return code;
}

static int manifest_check_all(const struct manifest_check *check, struct memory *memory)
{
    int code = manifest_check_files(check);
    if (code == OMENDB_OK && check->manifest->wal_number >= check->manifest->next_file)
        code = manifest_refuse(check, "the log", "has a number that was not given out yet");
    /* Of one that is read only: what goes on from a number at the limit must not be misuse. */
    if (code == OMENDB_OK && check->code == OMENDB_CORRUPT &&
        (check->manifest->next_file > MANIFEST_LARGEST_NUMBER ||
         check->manifest->next_collection == 0 ||
         check->manifest->next_collection > MANIFEST_LARGEST_NUMBER ||
         check->manifest->commit > MANIFEST_LARGEST_NUMBER))
        code = manifest_refuse(check, "a number", "is 0, or larger than any that was given out");
    for (uint32_t i = 0; i < check->manifest->collection_count && code == OMENDB_OK; i++)
        code = manifest_check_collection(check, i);
    if (code == OMENDB_OK)
        code = manifest_check_unique_ids(check, memory);
    if (code == OMENDB_OK)
        code = manifest_check_unique_parts(check, memory);
    return code;
}

/* ------------------------------------------------------------------------------------------------
 * writing */

OMENDB_INTERNAL void manifest_encode_limits(const omendb_limits *limits, uint8_t *at)
{
    format_put64(at + FORMAT_LIMITS_RECORDS, limits->records);
    format_put64(at + FORMAT_LIMITS_CONTENT, limits->bytes);
    format_put64(at + FORMAT_LIMITS_QUERIES, limits->queries_per_second);
    format_put64(at + FORMAT_LIMITS_WRITES, limits->writes_per_second);
}

OMENDB_INTERNAL void manifest_decode_limits(const uint8_t *at, omendb_limits *limits)
{
    *limits = (omendb_limits)OMENDB_LIMITS_INIT;
    limits->records = format_get64(at + FORMAT_LIMITS_RECORDS);
    limits->bytes = format_get64(at + FORMAT_LIMITS_CONTENT);
    limits->queries_per_second = format_get64(at + FORMAT_LIMITS_QUERIES);
    limits->writes_per_second = format_get64(at + FORMAT_LIMITS_WRITES);
}

OMENDB_INTERNAL int manifest_has_limits(const omendb_limits *limits)
{
    return limits->records != 0 || limits->bytes != 0 || limits->queries_per_second != 0 ||
           limits->writes_per_second != 0;
}

static size_t manifest_collection_bytes(const struct manifest_collection *collection)
{
    size_t name = (size_t)format_align(strlen(collection->name), 8);
    size_t curve = calibration_bytes(collection->calibration);
    size_t limits = manifest_has_limits(&collection->limits) ? FORMAT_LIMITS_BYTES : 0;
    return memory_add(FORMAT_COLLECTION_BYTES + name + curve + limits +
                          collection->declaration_bytes,
                      memory_multiply(collection->segment_count, FORMAT_REFERENCE_BYTES));
}

static size_t manifest_bytes(const struct manifest *manifest)
{
    size_t total =
        memory_add(FORMAT_MANIFEST_BYTES, memory_multiply(manifest->file_count, FORMAT_FILE_BYTES));
    for (uint32_t i = 0; i < manifest->collection_count; i++)
        total = memory_add(total, manifest_collection_bytes(&manifest->collections[i]));
    return total;
}

static void manifest_encode_files(const struct manifest *manifest, uint8_t *at)
{
    for (uint32_t i = 0; i < manifest->file_count; i++, at += FORMAT_FILE_BYTES) {
        const struct manifest_file *file = &manifest->files[i];
        format_put64(at + FORMAT_FILE_NUMBER, file->number);
        format_put64(at + FORMAT_FILE_SIZE, file->size);
        format_put32(at + FORMAT_FILE_CRC, file->footer_crc);
        format_put32(at + FORMAT_FILE_KIND,
                     file->kind == STORAGE_OVERLAY ? FORMAT_KIND_OVERLAY : FORMAT_KIND_SEGMENT);
    }
}

static void manifest_encode_collection(const struct manifest_collection *collection, uint8_t *at)
{
    const omendb_schema *schema = &collection->schema;
    size_t name_bytes = strlen(collection->name);
    format_put64(at + FORMAT_COLLECTION_ID, collection->id);
    format_put64(at + FORMAT_COLLECTION_NEXT_ID, collection->next_id);
    format_put64(at + FORMAT_COLLECTION_SEED, schema->seed);
    format_put32(at + FORMAT_COLLECTION_DIM, schema->dim);
    format_put32(at + FORMAT_COLLECTION_METRIC, schema->metric);
    format_put32(at + FORMAT_COLLECTION_SCALAR, schema->scalar);
    format_put_float(at + FORMAT_COLLECTION_SCALE, schema->scale);
    format_put32(at + FORMAT_COLLECTION_M, schema->M);
    format_put32(at + FORMAT_COLLECTION_EF_CONSTRUCTION, schema->ef_construction);
    format_put32(at + FORMAT_COLLECTION_EF, schema->ef);
    format_put32(at + FORMAT_COLLECTION_NAME_BYTES, (uint32_t)name_bytes);
    format_put32(at + FORMAT_COLLECTION_SEGMENTS, collection->segment_count);
    format_put32(at + FORMAT_COLLECTION_CALIBRATION,
                 (uint32_t)calibration_bytes(collection->calibration));
    format_put64(at + FORMAT_COLLECTION_DOCUMENTS, collection->document_bytes);
    format_put32(at + FORMAT_COLLECTION_LIMITS,
                 manifest_has_limits(&collection->limits) ? FORMAT_LIMITS_BYTES : 0);
    format_put32(at + FORMAT_COLLECTION_DECLARATION, collection->declaration_bytes);
    at += FORMAT_COLLECTION_BYTES;
    memcpy(at, collection->name, name_bytes);
    at += format_align(name_bytes, 8);
    for (uint32_t i = 0; i < collection->segment_count; i++, at += FORMAT_REFERENCE_BYTES) {
        const struct manifest_segment *segment = &collection->segments[i];
        format_put64(at + FORMAT_REFERENCE_FILE, segment->file);
        format_put32(at + FORMAT_REFERENCE_PART, segment->part);
        format_put32(at + FORMAT_REFERENCE_OVERLAY_PART, segment->overlay_part);
        format_put64(at + FORMAT_REFERENCE_OVERLAY_FILE, segment->overlay_file);
    }
    if (calibration_bytes(collection->calibration) != 0)
        calibration_encode(collection->calibration, at);
    at += calibration_bytes(collection->calibration);
    if (manifest_has_limits(&collection->limits)) {
        manifest_encode_limits(&collection->limits, at);
        at += FORMAT_LIMITS_BYTES;
    }
    if (collection->declaration_bytes != 0)
        memcpy(at, collection->declaration, collection->declaration_bytes);
}

OMENDB_INTERNAL int manifest_pack(struct memory *memory, struct manifest *manifest)
{
    size_t bytes = 0;
    if (manifest->packed != NULL)
        return OMENDB_OK;
    for (uint32_t i = 0; i < manifest->collection_count; i++)
        bytes = memory_add(bytes, manifest_collection_bytes(&manifest->collections[i]));
    uint8_t *at = memory_zalloc(memory, bytes);
    if (at == NULL)
        return OMENDB_NOMEM;
    manifest->packed = at;
    manifest->packed_bytes = bytes;
    for (uint32_t i = 0; i < manifest->collection_count; i++) {
        manifest_encode_collection(&manifest->collections[i], at);
        at += manifest_collection_bytes(&manifest->collections[i]);
    }
    manifest_free_collections(memory, manifest);
    return OMENDB_OK;
}

/* `bytes` is zeroed. */
static void manifest_encode(const struct manifest *manifest, uint8_t *bytes, size_t length)
{
    storage_header_begin(bytes, FORMAT_MAGIC_MANIFEST);
    format_put64(bytes + FORMAT_MANIFEST_LENGTH, length);
    format_put64(bytes + FORMAT_MANIFEST_NUMBER, manifest->number);
    format_put32(bytes + FORMAT_MANIFEST_COPY, manifest->copy);
    format_put64(bytes + FORMAT_MANIFEST_DATABASE, manifest->database);
    format_put64(bytes + FORMAT_MANIFEST_COMMIT, manifest->commit);
    format_put64(bytes + FORMAT_MANIFEST_WAL, manifest->wal_number);
    format_put64(bytes + FORMAT_MANIFEST_NEXT_FILE, manifest->next_file);
    format_put64(bytes + FORMAT_MANIFEST_NEXT_COLLECTION, manifest->next_collection);
    format_put32(bytes + FORMAT_MANIFEST_FILES, manifest->file_count);
    format_put32(bytes + FORMAT_MANIFEST_COLLECTIONS, manifest->collection_count);
    manifest_encode_files(manifest, bytes + FORMAT_MANIFEST_BYTES);
    uint8_t *at = bytes + FORMAT_MANIFEST_BYTES + (size_t)manifest->file_count * FORMAT_FILE_BYTES;
    for (uint32_t i = 0; i < manifest->collection_count; i++) {
        manifest_encode_collection(&manifest->collections[i], at);
        at += manifest_collection_bytes(&manifest->collections[i]);
    }
    uint32_t crc = checksum_crc32c(0, bytes + FORMAT_HEADER_BYTES, length - FORMAT_HEADER_BYTES);
    format_put32(bytes + FORMAT_MANIFEST_CRC, crc);
    storage_header_end(bytes);
}

/* A new file with these bytes, synced. */
static int manifest_write_file(struct storage *storage, const char *name, const void *bytes,
                               size_t length)
{
    struct storage_file file;
    int code = storage_open(
        storage, name,
        OMENDB_OPEN_READ | OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE | OMENDB_OPEN_EXCLUSIVE, &file);
    if (code != OMENDB_OK)
        return code;
    code = storage_write(storage, &file, 0, bytes, length);
    if (code == OMENDB_OK)
        code = storage_sync(storage, &file);
    if (code != OMENDB_OK) {
        char text[ERROR_TEXT_BYTES];
        snprintf(text, sizeof text, "%s", error_text());
        storage_close(storage, &file);
        storage_unlink(storage, name);
        return error_adopt(code, text);
    }
    return storage_close(storage, &file);
}

/* The text of CURRENT; returns its length. */
static size_t manifest_current_text(uint64_t number, char text[MANIFEST_CURRENT_BYTES])
{
    char name[STORAGE_NAME_BYTES];
    storage_name(STORAGE_MANIFEST, number, name);
    int line = snprintf(text, MANIFEST_CURRENT_BYTES, "%s\n", name);
    uint32_t crc = checksum_crc32c(0, text, (size_t)line);
    return (size_t)(line + snprintf(text + line, MANIFEST_CURRENT_BYTES - (size_t)line,
                                    "%08" PRIx32 "\n", crc));
}

/* Makes both files; what is there already under the temporary name was left by a crash. */
static int manifest_prepare(struct storage *storage, const char *name, uint64_t number,
                            const uint8_t *bytes, size_t length)
{
    char text[MANIFEST_CURRENT_BYTES];
    size_t text_length = manifest_current_text(number, text);
    int code = storage_unlink(storage, MANIFEST_CURRENT_TMP);
    if (code == OMENDB_OK)
        code = manifest_write_file(storage, name, bytes, length);
    if (code != OMENDB_OK)
        return code;
    code = manifest_write_file(storage, MANIFEST_CURRENT_TMP, text, text_length);
    if (code == OMENDB_OK)
        code = storage_sync_directory(storage);
    return code;
}

/* The old manifest stays the current one; what was prepared for the new one goes. */
static int manifest_abandon(struct storage *storage, const char *name, int code)
{
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof text, "%s", error_text());
    storage_unlink(storage, name);
    storage_unlink(storage, MANIFEST_CURRENT_TMP);
    return error_adopt(code, text);
}

static int manifest_publish(struct storage *storage, uint64_t number, const uint8_t *bytes,
                            size_t length)
{
    char name[STORAGE_NAME_BYTES], text[ERROR_TEXT_BYTES];
    storage_name(STORAGE_MANIFEST, number, name);
    int code = manifest_prepare(storage, name, number, bytes, length);
    if (code == OMENDB_EXISTS)
        return code; /* not ours to delete */
    if (code != OMENDB_OK)
        return manifest_abandon(storage, name, code);
    code = storage_rename(storage, MANIFEST_CURRENT_TMP, MANIFEST_CURRENT);
    /* A rename that was asked for twice, as over a network, may have happened and find nothing. */
    if (code != OMENDB_OK && code != OMENDB_IOERR && code != OMENDB_NOTFOUND)
        return manifest_abandon(storage, name, code);
    if (code == OMENDB_OK)
        code = storage_sync_directory(storage);
    if (code == OMENDB_OK)
        return OMENDB_OK;
    snprintf(text, sizeof text, "%s", error_text());
    return error_set(
        OMENDB_POISONED,
        "%.400s; whether %s took the place of the former one is not known: reopen the database",
        text, name);
}

/* A copy whose files are sorted, which shares the collections. */
static int manifest_sort_files(struct memory *memory, const struct manifest *manifest,
                               struct manifest *sorted)
{
    *sorted = *manifest;
    sorted->files = memory_array(memory, manifest->file_count, sizeof *sorted->files);
    if (sorted->files == NULL)
        return OMENDB_NOMEM;
    if (manifest->file_count > 0)
        memcpy(sorted->files, manifest->files, manifest->file_count * sizeof *sorted->files);
    sort_array(sorted->files, manifest->file_count, sizeof *sorted->files, manifest_compare_files);
    return OMENDB_OK;
}

OMENDB_INTERNAL int manifest_write(struct storage *storage, const struct manifest *manifest)
{
    struct manifest sorted;
    struct manifest_check check = {&sorted, "the new manifest", OMENDB_MISUSE};
    uint8_t *bytes = NULL;
    size_t length = 0;
    int code = manifest_sort_files(storage->memory, manifest, &sorted);
    if (code != OMENDB_OK)
        return code;
    code = manifest_check_all(&check, storage->memory);
    if (code == OMENDB_OK) {
        length = manifest_bytes(&sorted);
        bytes = memory_zalloc(storage->memory, length);
        code = bytes == NULL ? OMENDB_NOMEM : OMENDB_OK;
    }
    if (code == OMENDB_OK) {
        manifest_encode(&sorted, bytes, length);
        code = manifest_publish(storage, manifest->number, bytes, length);
    }
    memory_free(storage->memory, bytes, length);
    memory_free(storage->memory, sorted.files, sorted.file_count * sizeof *sorted.files);
    return code;
}

OMENDB_INTERNAL int manifest_compare(struct memory *memory, const struct manifest *a,
                                     const struct manifest *b, int *same)
{
    size_t length = manifest_bytes(a);
    *same = manifest_bytes(b) == length;
    if (!*same)
        return OMENDB_OK;
    uint8_t *left = memory_zalloc(memory, length), *right = memory_zalloc(memory, length);
    int code = left == NULL || right == NULL ? OMENDB_NOMEM : OMENDB_OK;
    if (code == OMENDB_OK) {
        manifest_encode(a, left, length);
        manifest_encode(b, right, length);
        *same = memcmp(left, right, length) == 0;
    }
    memory_free(memory, left, length);
    memory_free(memory, right, length);
    return code;
}

/* ------------------------------------------------------------------------------------------------
 * reading */

OMENDB_INTERNAL int manifest_current(struct storage *storage, uint64_t *number)
{
    struct storage_file file;
    char text[MANIFEST_CURRENT_BYTES], expected[MANIFEST_CURRENT_BYTES];
    uint64_t size = 0;
    enum storage_kind kind;
    int code = storage_open(storage, MANIFEST_CURRENT, OMENDB_OPEN_READ, &file);
    if (code != OMENDB_OK)
        return code;
    code = storage_size(storage, &file, &size);
    if (code == OMENDB_OK && size < sizeof text)
        code = storage_read(storage, &file, 0, text, (size_t)size);
    storage_close(storage, &file);
    if (code != OMENDB_OK)
        return code;
    size_t line = 0;
    while (size < sizeof text && line < size && text[line] != '\n')
        line++;
    if (size < sizeof text && line < size) {
        text[line] = '\0';
        int named = storage_parse_name(text, &kind, number) && kind == STORAGE_MANIFEST;
        text[line] = '\n';
        if (named && manifest_current_text(*number, expected) == size &&
            memcmp(text, expected, (size_t)size) == 0)
            return OMENDB_OK;
    }
    return error_set(OMENDB_CORRUPT,
                     "%s (offset 0, %" PRIu64
                     " bytes) does not name a manifest with its checksum; " ERROR_RESTORE,
                     MANIFEST_CURRENT, size);
}

/* What is left of the bytes while they are decoded. */
struct manifest_input {
    const char *name;
    const uint8_t *bytes;
    size_t length;
    size_t at;
    size_t collection_bytes; /* fixed ones of a collection */
};

static int manifest_too_short(const struct manifest_input *input)
{
    return error_set(OMENDB_CORRUPT,
                     "%s: offset %zu: its counts do not fit its %zu bytes; " ERROR_RESTORE,
                     input->name, input->at, input->length);
}

/* The next `count` items of `item` bytes, or NULL. */
static const uint8_t *manifest_take(struct manifest_input *input, size_t count, size_t item)
{
    const uint8_t *taken = input->bytes + input->at;
    if (count > (input->length - input->at) / item)
        return NULL;
    input->at += count * item;
    return taken;
}

static int manifest_decode_files(struct manifest_input *input, uint32_t count,
                                 struct memory *memory, struct manifest *manifest)
{
    const uint8_t *at = manifest_take(input, count, FORMAT_FILE_BYTES);
    if (at == NULL)
        return manifest_too_short(input);
    manifest->files = memory_array(memory, count, sizeof *manifest->files);
    if (manifest->files == NULL)
        return OMENDB_NOMEM;
    manifest->file_count = count;
    for (uint32_t i = 0; i < count; i++, at += FORMAT_FILE_BYTES) {
        struct manifest_file *file = &manifest->files[i];
        uint32_t kind = format_get32(at + FORMAT_FILE_KIND);
        file->number = format_get64(at + FORMAT_FILE_NUMBER);
        file->size = format_get64(at + FORMAT_FILE_SIZE);
        file->footer_crc = format_get32(at + FORMAT_FILE_CRC);
        file->kind = STORAGE_MANIFEST; /* refused by the check */
        if (kind == FORMAT_KIND_SEGMENT || kind == FORMAT_KIND_OVERLAY)
            file->kind = kind == FORMAT_KIND_SEGMENT ? STORAGE_SEGMENT : STORAGE_OVERLAY;
    }
    return OMENDB_OK;
}

static void manifest_decode_schema(const uint8_t *at, omendb_schema *schema)
{
    memset(schema, 0, sizeof *schema);
    schema->struct_size = sizeof *schema;
    schema->seed = format_get64(at + FORMAT_COLLECTION_SEED);
    schema->dim = format_get32(at + FORMAT_COLLECTION_DIM);
    schema->metric = format_get32(at + FORMAT_COLLECTION_METRIC);
    schema->scalar = format_get32(at + FORMAT_COLLECTION_SCALAR);
    schema->scale = format_get_float(at + FORMAT_COLLECTION_SCALE);
    schema->M = format_get32(at + FORMAT_COLLECTION_M);
    schema->ef_construction = format_get32(at + FORMAT_COLLECTION_EF_CONSTRUCTION);
    schema->ef = format_get32(at + FORMAT_COLLECTION_EF);
}

static int manifest_decode_segments(struct manifest_input *input, uint32_t count,
                                    struct memory *memory, struct manifest_collection *collection)
{
    const uint8_t *at = manifest_take(input, count, FORMAT_REFERENCE_BYTES);
    if (at == NULL)
        return manifest_too_short(input);
    collection->segments = memory_array(memory, count, sizeof *collection->segments);
    if (collection->segments == NULL)
        return OMENDB_NOMEM;
    collection->segment_count = count;
    for (uint32_t i = 0; i < count; i++, at += FORMAT_REFERENCE_BYTES) {
        struct manifest_segment *segment = &collection->segments[i];
        segment->file = format_get64(at + FORMAT_REFERENCE_FILE);
        segment->part = format_get32(at + FORMAT_REFERENCE_PART);
        segment->overlay_part = format_get32(at + FORMAT_REFERENCE_OVERLAY_PART);
        segment->overlay_file = format_get64(at + FORMAT_REFERENCE_OVERLAY_FILE);
    }
    return OMENDB_OK;
}

static int manifest_decode_calibration(struct manifest_input *input, uint32_t length,
                                       struct memory *memory,
                                       struct manifest_collection *collection)
{
    if (length == 0)
        return OMENDB_OK;
    const uint8_t *at = manifest_take(input, length, 1);
    if (at == NULL || !calibration_length_is_legal(length))
        return manifest_too_short(input);
    collection->calibration = memory_alloc(memory, sizeof *collection->calibration);
    if (collection->calibration == NULL)
        return OMENDB_NOMEM;
    /* What is not a curve is refused by the check, as it has no entries. */
    (void)calibration_decode(collection->calibration, at, length);
    return OMENDB_OK;
}

static int manifest_take_limits(struct manifest_input *input, uint32_t length,
                                struct manifest_collection *collection)
{
    if (length == 0)
        return OMENDB_OK;
    const uint8_t *at = manifest_take(input, length, 1);
    if (at == NULL || length != FORMAT_LIMITS_BYTES)
        return manifest_too_short(input);
    manifest_decode_limits(at, &collection->limits);
    return OMENDB_OK;
}

static int manifest_take_declaration(struct manifest_input *input, uint32_t length,
                                     struct memory *memory, struct manifest_collection *collection)
{
    if (length == 0)
        return OMENDB_OK;
    const uint8_t *at = manifest_take(input, length, 1);
    if (at == NULL || length % 8 != 0)
        return manifest_too_short(input);
    collection->declaration = memory_alloc(memory, length);
    if (collection->declaration == NULL)
        return OMENDB_NOMEM;
    collection->declaration_bytes = length;
    memcpy(collection->declaration, at, length);
    return OMENDB_OK;
}

/* What version 1 does not have. */
static int manifest_decode_settings(struct manifest_input *input, const uint8_t *fixed,
                                    struct memory *memory, struct manifest_collection *collection)
{
    collection->limits = (omendb_limits)OMENDB_LIMITS_INIT;
    if (input->collection_bytes == FORMAT_COLLECTION_BYTES_OF_1)
        return OMENDB_OK;
    collection->document_bytes = format_get64(fixed + FORMAT_COLLECTION_DOCUMENTS);
    int code =
        manifest_take_limits(input, format_get32(fixed + FORMAT_COLLECTION_LIMITS), collection);
    return code == OMENDB_OK
               ? manifest_take_declaration(
                     input, format_get32(fixed + FORMAT_COLLECTION_DECLARATION), memory, collection)
               : code;
}

static int manifest_decode_collection(struct manifest_input *input, struct memory *memory,
                                      struct manifest_collection *collection)
{
    const uint8_t *fixed = manifest_take(input, 1, input->collection_bytes);
    if (fixed == NULL)
        return manifest_too_short(input);
    uint32_t name_bytes = format_get32(fixed + FORMAT_COLLECTION_NAME_BYTES);
    if (name_bytes >= sizeof collection->name)
        return manifest_too_short(input);
    const uint8_t *name = manifest_take(input, (size_t)format_align(name_bytes, 8), 1);
    if (name == NULL)
        return manifest_too_short(input);
    collection->id = format_get64(fixed + FORMAT_COLLECTION_ID);
    collection->next_id = format_get64(fixed + FORMAT_COLLECTION_NEXT_ID);
    manifest_decode_schema(fixed, &collection->schema);
    memcpy(collection->name, name, name_bytes);
    /* A NUL inside would let two names look alike. */
    if (strlen(collection->name) != name_bytes)
        return manifest_too_short(input);
    int code = manifest_decode_segments(input, format_get32(fixed + FORMAT_COLLECTION_SEGMENTS),
                                        memory, collection);
    if (code == OMENDB_OK)
        code = manifest_decode_calibration(
            input, format_get32(fixed + FORMAT_COLLECTION_CALIBRATION), memory, collection);
    if (code == OMENDB_OK)
        code = manifest_decode_settings(input, fixed, memory, collection);
    return code;
}

static int manifest_decode_collections(struct manifest_input *input, uint32_t count,
                                       struct memory *memory, struct manifest *manifest)
{
    int code = OMENDB_OK;
    manifest->collections =
        memory_zalloc(memory, memory_multiply(count, sizeof *manifest->collections));
    if (manifest->collections == NULL)
        return OMENDB_NOMEM;
    manifest->collection_count = count;
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++)
        code = manifest_decode_collection(input, memory, &manifest->collections[i]);
    return code;
}

OMENDB_INTERNAL int manifest_unpack(struct memory *memory, const struct manifest *packed,
                                    struct manifest *collections)
{
    struct manifest_input input = {"manifest", packed->packed, packed->packed_bytes, 0,
                                   FORMAT_COLLECTION_BYTES};
    memset(collections, 0, sizeof *collections);
    int code = manifest_decode_collections(&input, packed->collection_count, memory, collections);
    if (code != OMENDB_OK)
        manifest_destroy(memory, collections);
    return code;
}

/* Bytes whose two checksums are right. On failure the caller destroys what was decoded. */
static int manifest_decode(struct manifest_input *input, struct memory *memory,
                           struct manifest *manifest)
{
    const uint8_t *fixed = input->bytes;
    manifest->read_only_features = format_get32(fixed + FORMAT_HEADER_READ_ONLY);
    manifest->copy = format_get32(fixed + FORMAT_MANIFEST_COPY);
    manifest->database = format_get64(fixed + FORMAT_MANIFEST_DATABASE);
    manifest->commit = format_get64(fixed + FORMAT_MANIFEST_COMMIT);
    manifest->wal_number = format_get64(fixed + FORMAT_MANIFEST_WAL);
    manifest->next_file = format_get64(fixed + FORMAT_MANIFEST_NEXT_FILE);
    manifest->next_collection = format_get64(fixed + FORMAT_MANIFEST_NEXT_COLLECTION);
    input->at = FORMAT_MANIFEST_BYTES;
    int code =
        manifest_decode_files(input, format_get32(fixed + FORMAT_MANIFEST_FILES), memory, manifest);
    if (code != OMENDB_OK)
        return code;
    uint32_t count = format_get32(fixed + FORMAT_MANIFEST_COLLECTIONS);
    input->collection_bytes = format_get32(fixed + FORMAT_HEADER_VERSION) == 1
                                  ? FORMAT_COLLECTION_BYTES_OF_1
                                  : FORMAT_COLLECTION_BYTES;
    if (count > (input->length - input->at) / input->collection_bytes)
        return manifest_too_short(input);
    code = manifest_decode_collections(input, count, memory, manifest);
    if (code == OMENDB_OK && input->at != input->length)
        code = manifest_too_short(input);
    return code;
}

/* Header, length, number and checksum of the bytes. */
static int manifest_verify(const struct manifest_input *input, uint64_t number)
{
    const uint8_t *bytes = input->bytes;
    int code = storage_header_check(input->name, bytes, FORMAT_MAGIC_MANIFEST);
    if (code != OMENDB_OK)
        return code;
    if (format_get64(bytes + FORMAT_MANIFEST_LENGTH) != input->length)
        return error_set(OMENDB_CORRUPT, "%s: has %zu bytes, expected %" PRIu64 "; " ERROR_RESTORE,
                         input->name, input->length, format_get64(bytes + FORMAT_MANIFEST_LENGTH));
    if (format_get64(bytes + FORMAT_MANIFEST_NUMBER) != number)
        return error_set(OMENDB_CORRUPT,
                         "%s: its header says number %" PRIu64 ": it is another file, renamed",
                         input->name, format_get64(bytes + FORMAT_MANIFEST_NUMBER));
    uint32_t crc =
        checksum_crc32c(0, bytes + FORMAT_HEADER_BYTES, input->length - FORMAT_HEADER_BYTES);
    uint32_t stored = format_get32(bytes + FORMAT_MANIFEST_CRC);
    if (crc != stored)
        return error_set(OMENDB_CORRUPT,
                         "%s: offset %d: checksum %08" PRIx32 ", expected %08" PRIx32
                         "; " ERROR_RESTORE,
                         input->name, FORMAT_HEADER_BYTES, crc, stored);
    return OMENDB_OK;
}

/* The whole file; *bytes of *length is the caller's to free, also on failure. */
static int manifest_load(struct storage *storage, const char *name, uint8_t **bytes, size_t *length)
{
    struct storage_file file;
    uint64_t size = 0;
    int code = storage_open(storage, name, OMENDB_OPEN_READ, &file);
    if (code != OMENDB_OK)
        return code;
    code = storage_size(storage, &file, &size);
    if (code == OMENDB_OK && (size < FORMAT_MANIFEST_BYTES || size > SIZE_MAX))
        code = error_set(OMENDB_CORRUPT,
                         "%s: has %" PRIu64 " bytes, too few for a manifest; " ERROR_RESTORE, name,
                         size);
    if (code == OMENDB_OK) {
        *length = (size_t)size;
        *bytes = memory_alloc(storage->memory, *length);
        code = *bytes == NULL ? OMENDB_NOMEM : storage_read(storage, &file, 0, *bytes, *length);
    }
    storage_close(storage, &file);
    return code;
}

OMENDB_INTERNAL int manifest_read_number(struct storage *storage, uint64_t number,
                                         struct manifest *manifest)
{
    char name[STORAGE_NAME_BYTES];
    uint8_t *bytes = NULL;
    size_t length = 0;
    storage_name(STORAGE_MANIFEST, number, name);
    struct manifest_check check = {manifest, name, OMENDB_CORRUPT};
    memset(manifest, 0, sizeof *manifest);
    manifest->number = number;
    int code = manifest_load(storage, name, &bytes, &length);
    struct manifest_input input = {name, bytes, length, 0, 0};
    if (code == OMENDB_OK)
        code = manifest_verify(&input, number);
    if (code == OMENDB_OK)
        code = manifest_decode(&input, storage->memory, manifest);
    if (code == OMENDB_OK)
        code = manifest_check_all(&check, storage->memory);
    memory_free(storage->memory, bytes, length);
    if (code != OMENDB_OK)
        manifest_destroy(storage->memory, manifest);
    return code;
}

/* A reader beside a writer may find that the manifest is gone, because CURRENT names a newer one by
 * now. */
OMENDB_INTERNAL int manifest_read(struct storage *storage, struct manifest *manifest)
{
    uint64_t number, missing = 0;
    memset(manifest, 0, sizeof *manifest);
    for (int tries = 0; tries < MANIFEST_READ_TRIES; tries++) {
        int code = manifest_current(storage, &number);
        if (code != OMENDB_OK)
            return code;
        if (tries > 0 && number == missing)
            break;
        code = manifest_read_number(storage, number, manifest);
        if (code != OMENDB_NOTFOUND)
            return code;
        missing = number;
    }
    return error_set(OMENDB_CORRUPT,
                     "%s names MANIFEST-%" PRIu64 ", which is missing; " ERROR_RESTORE,
                     MANIFEST_CURRENT, missing);
}

/* The id in the header of a manifest; OMENDB_NOTFOUND also where it is too short to have one. */
static int manifest_read_database(struct storage *storage, uint64_t number, uint64_t *database)
{
    struct storage_file file;
    char name[STORAGE_NAME_BYTES];
    uint8_t header[FORMAT_HEADER_BYTES];
    uint64_t size = 0;
    storage_name(STORAGE_MANIFEST, number, name);
    int code = storage_open(storage, name, OMENDB_OPEN_READ, &file);
    if (code != OMENDB_OK)
        return code;
    code = storage_size(storage, &file, &size);
    if (code == OMENDB_OK)
        code = size < sizeof header ? OMENDB_NOTFOUND
                                    : storage_read(storage, &file, 0, header, sizeof header);
    storage_close(storage, &file);
    if (code == OMENDB_OK)
        *database = format_get64(header + FORMAT_MANIFEST_DATABASE);
    return code;
}

OMENDB_INTERNAL int manifest_confirm(struct storage *storage, const struct manifest *manifest)
{
    uint64_t number = 0, database = 0;
    int code = manifest_current(storage, &number);
    if (code == OMENDB_OK && number == manifest->number)
        code = manifest_read_database(storage, number, &database);
    if (code == OMENDB_OK && number == manifest->number && database == manifest->database)
        return OMENDB_OK;
    if (code != OMENDB_OK && code != OMENDB_NOTFOUND && code != OMENDB_CORRUPT)
        return code;
    return error_set(OMENDB_POISONED,
                     "%s does not name MANIFEST-%" PRIu64
                     " any more: the database was removed, or another one put in its place, while "
                     "it was open; nothing is written to it: close it",
                     MANIFEST_CURRENT, manifest->number);
}

#undef MANIFEST_CURRENT
#undef MANIFEST_CURRENT_TMP
#undef MANIFEST_CURRENT_BYTES
#undef MANIFEST_READ_TRIES
