/* fuzz_mutate.h: how an input of files is changed: by libFuzzer in a window of a file, or where
 * format.h says that a number lies, or by whole records and entries; then, most of the time, every
 * checksum is repaired, so that the change gets past them. Only for builds with libFuzzer. */
#ifndef OMENDB_FUZZ_MUTATE_H
#define OMENDB_FUZZ_MUTATE_H

/* Takes bytes out and puts `more` zeros in their place. */
static inline void fuzz_splice(struct fuzz_file *file, size_t at, size_t less, size_t more)
{
    if (at > file->size || less > file->size - at || file->size - less + more > FUZZ_FILE_BYTES)
        return;
    if (more > less)
        file->bytes = fuzz_memory(file->bytes, file->size - less + more);
    memmove(file->bytes + at + more, file->bytes + at + less, file->size - at - less);
    memset(file->bytes + at, 0, more);
    file->size = file->size - less + more;
}

/* Puts a copy of [from, from + size) at `to`. */
static inline void fuzz_duplicate(struct fuzz_file *file, size_t from, size_t size, size_t to)
{
    uint8_t *copy = fuzz_memory(NULL, size);
    size_t before = file->size;
    memcpy(copy, file->bytes + from, size);
    fuzz_splice(file, to, 0, size);
    if (file->size != before)
        memcpy(file->bytes + to, copy, size);
    free(copy);
}

static inline void fuzz_swap(uint8_t *left, uint8_t *right, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        uint8_t byte = left[i];
        left[i] = right[i];
        right[i] = byte;
    }
}

/* A number that is likely to be a limit of something; `hint` is one that means something here. */
static inline uint64_t fuzz_value(uint64_t *chance, uint64_t old, uint64_t hint)
{
    switch (fuzz_below(chance, 14)) {
    case 0:
        return 0;
    case 1:
        return 1;
    case 2:
        return old + 1;
    case 3:
        return old - 1;
    case 4:
        return hint;
    case 5:
        return hint - 1;
    case 6:
        return hint + 1;
    case 7:
        return UINT64_MAX;
    case 8:
        return UINT64_C(1) << fuzz_below(chance, 64);
    case 9:
        return (UINT64_C(1) << fuzz_below(chance, 64)) - 1;
    case 10:
        return old ^ UINT64_C(1) << fuzz_below(chance, 64);
    case 11:
        return hint == 0 ? 0 : fuzz_next(chance) % hint;
    case 12:
        return old * 2;
    default:
        return fuzz_next(chance) >> fuzz_below(chance, 64);
    }
}

/* A number of 1, 4 or 8 bytes. */
static inline void fuzz_change(uint64_t *chance, uint8_t *at, size_t bytes, uint64_t hint)
{
    uint64_t old = 0;
    memcpy(&old, at, bytes);
    old = fuzz_value(chance, old, hint);
    memcpy(at, &old, bytes);
}

/* ---- any file */

/* A window that does not lie in zeros alone, if chance finds one. */
static inline void fuzz_mutate_window(struct fuzz_file *file, uint64_t *chance)
{
    if (file->size == 0)
        return;
    size_t at = 0, length = (size_t)1 << fuzz_below(chance, 8);
    for (int tries = 0; tries < 16; tries++) {
        at = fuzz_below(chance, file->size);
        if (file->bytes[at] != 0)
            break;
    }
    length = length < file->size - at ? length : file->size - at;
    LLVMFuzzerMutate(file->bytes + at, length, length);
}

static inline void fuzz_mutate_number(struct fuzz_file *file, uint64_t *chance)
{
    size_t bytes = fuzz_below(chance, 2) ? 4 : 8;
    if (file->size < 8)
        return;
    size_t at = fuzz_below(chance, file->size / bytes) * bytes;
    fuzz_change(chance, file->bytes + at, bytes, fuzz_below(chance, 128));
}

static inline void fuzz_mutate_length(struct fuzz_file *file, uint64_t *chance)
{
    size_t at = fuzz_below(chance, file->size + 1), size = (size_t)1 << fuzz_below(chance, 15);
    if (fuzz_below(chance, 2))
        fuzz_splice(file, at, size < file->size - at ? size : file->size - at, 0);
    else
        fuzz_splice(file, at, 0, size);
}

/* ---- segments and overlays */

static const uint8_t fuzz_part_fields[] = {
    FORMAT_PART_TARGET_PART,  FORMAT_PART_FLAGS,       FORMAT_PART_ROWS,
    FORMAT_PART_INDEXED_ROWS, FORMAT_PART_UPPER_COUNT, FORMAT_PART_ENTRY_ROW,
    FORMAT_PART_ENTRY_LEVEL,  FORMAT_PART_M,           FORMAT_PART_VECTOR_STRIDE,
    FORMAT_PART_DIM,          FORMAT_PART_SCALAR,      FORMAT_PART_METRIC,
    FORMAT_PART_CODE_LOW,     FORMAT_PART_CODE_STEP,   FORMAT_PART_REFERENCE_RECALL,
    FORMAT_PART_COLLECTION,   FORMAT_PART_TARGET_FILE, FORMAT_PART_SMALLEST_ID,
    FORMAT_PART_LARGEST_ID};

static inline void fuzz_mutate_part(const struct fuzz_footer *footer, uint64_t *chance)
{
    uint8_t *part =
        footer->parts + (size_t)fuzz_below(chance, footer->part_count) * FORMAT_PART_BYTES;
    size_t field = fuzz_part_fields[fuzz_below(chance, sizeof fuzz_part_fields)];
    size_t bytes = field < FORMAT_PART_TARGET_PART ? 8 : 4;
    uint64_t hint = format_get32(part + FORMAT_PART_ROWS);
    fuzz_change(chance, part + field, bytes, field == FORMAT_PART_COLLECTION ? 1 : hint);
}

static inline void fuzz_mutate_section_entry(const struct fuzz_footer *footer, uint64_t *chance)
{
    uint32_t index = fuzz_below(chance, footer->section_count),
             other = fuzz_below(chance, footer->section_count);
    uint8_t *entry = footer->sections + (size_t)index * FORMAT_SECTION_BYTES,
            *second = footer->sections + (size_t)other * FORMAT_SECTION_BYTES;
    switch (fuzz_below(chance, 6)) {
    case 0: /* two sections trade their places */
        fuzz_swap(entry + FORMAT_SECTION_OFFSET, second + FORMAT_SECTION_OFFSET, 16);
        break;
    case 1: /* or their types */
        fuzz_swap(entry + FORMAT_SECTION_TYPE, second + FORMAT_SECTION_TYPE, 4);
        break;
    case 2:
        format_put32(entry + FORMAT_SECTION_TYPE, fuzz_below(chance, SECTION_TYPES + 1));
        break;
    case 3:
        fuzz_change(chance, entry + FORMAT_SECTION_PART, 4, footer->part_count);
        break;
    case 4:
        fuzz_change(chance, entry + FORMAT_SECTION_OFFSET, 8,
                    (uint64_t)fuzz_below(chance, footer->data / 64) * 64);
        break;
    default:
        fuzz_change(chance, entry + FORMAT_SECTION_LENGTH, 8,
                    footer->data - format_get64(entry + FORMAT_SECTION_OFFSET));
    }
}

/* Numbers that a section's bytes are made of. */
static inline size_t fuzz_element(uint32_t type)
{
    switch (type) {
    case SECTION_LEVELS:
    case SECTION_CODES:
        return 1;
    case SECTION_IDS:
    case SECTION_SORTED_IDS:
    case SECTION_ID_FILTER:
    case SECTION_ID_MODEL:
    case SECTION_DOCUMENT_ENDS:
    case SECTION_KEY_HASHES:
    case SECTION_OVERLAY_COMMITS:
        return 8;
    default:
        return 4;
    }
}

/* A link, a level, an id, a row, a component of a vector. */
static inline void fuzz_mutate_content(const struct fuzz_file *file,
                                       const struct fuzz_footer *footer, uint64_t *chance)
{
    const uint8_t *entry =
        footer->sections + (size_t)fuzz_below(chance, footer->section_count) * FORMAT_SECTION_BYTES;
    uint64_t offset = format_get64(entry + FORMAT_SECTION_OFFSET),
             length = format_get64(entry + FORMAT_SECTION_LENGTH);
    uint32_t type = format_get32(entry + FORMAT_SECTION_TYPE),
             part = format_get32(entry + FORMAT_SECTION_PART);
    size_t bytes = fuzz_element(type);
    if (offset > footer->data || length > footer->data - offset || length < bytes ||
        part >= footer->part_count)
        return;
    const uint8_t *info = footer->parts + (size_t)part * FORMAT_PART_BYTES;
    uint64_t hint = format_get32(info + FORMAT_PART_ROWS);
    if (type == SECTION_UPPER_INDEX)
        hint = format_get32(info + FORMAT_PART_UPPER_COUNT);
    if (type == SECTION_LEVELS)
        hint = 16;
    uint8_t *first = file->bytes + offset;
    size_t count = (size_t)length / bytes;
    for (uint32_t i = 1 + fuzz_below(chance, 4); i > 0; i--) {
        uint8_t *at = first + fuzz_below(chance, count) * bytes;
        if (fuzz_below(chance, 4) == 0)
            memcpy(at, first + fuzz_below(chance, count) * bytes, bytes);
        else
            fuzz_change(chance, at, bytes, hint);
    }
}

/* One part or section more or less, with the counts that say so. */
static inline void fuzz_mutate_directory(struct fuzz_file *file, const struct fuzz_footer *footer,
                                         uint64_t *chance)
{
    int is_part = (int)fuzz_below(chance, 2), more = (int)fuzz_below(chance, 2);
    size_t bytes = is_part ? FORMAT_PART_BYTES : FORMAT_SECTION_BYTES;
    uint32_t count = is_part ? footer->part_count : footer->section_count;
    uint8_t *first = is_part ? footer->parts : footer->sections;
    size_t at = (size_t)(first - file->bytes) + fuzz_below(chance, count) * bytes;
    uint8_t *field = footer->trailer + (is_part ? FORMAT_TRAILER_PARTS : FORMAT_TRAILER_SECTIONS);
    format_put32(field, more ? count + 1 : count - 1);
    if (more)
        fuzz_duplicate(file, at, bytes, at);
    else
        fuzz_splice(file, at, bytes, 0);
}

static inline void fuzz_mutate_segment(struct fuzz_file *file, uint64_t *chance)
{
    struct fuzz_footer footer;
    if (!fuzz_find_footer(file, &footer) || footer.part_count == 0 || footer.section_count == 0) {
        fuzz_mutate_window(file, chance);
        return;
    }
    switch (fuzz_below(chance, 10)) {
    case 0:
    case 1:
        fuzz_mutate_part(&footer, chance);
        break;
    case 2:
    case 3:
        fuzz_mutate_section_entry(&footer, chance);
        break;
    case 4:
        fuzz_mutate_directory(file, &footer, chance);
        break;
    case 5:
        fuzz_change(chance, footer.trailer + FORMAT_TRAILER_PARTS + 4 * fuzz_below(chance, 2), 4,
                    footer.part_count);
        break;
    default:
        fuzz_mutate_content(file, &footer, chance);
    }
}

/* ---- logs */

#define FUZZ_RECORDS 64

static inline size_t fuzz_find_records(struct fuzz_file *file, size_t offsets[FUZZ_RECORDS + 1])
{
    size_t count = 0, at = FORMAT_HEADER_BYTES, total;
    while (count < FUZZ_RECORDS && (total = fuzz_record(file, at)) != 0) {
        offsets[count++] = at;
        at += total;
    }
    offsets[count] = at;
    return count;
}

static inline void fuzz_mutate_record_header(uint8_t *record, size_t at, uint64_t *chance)
{
    static const uint8_t fields[] = {FORMAT_RECORD_LENGTH, FORMAT_RECORD_SEQUENCE,
                                     FORMAT_RECORD_DURABLE, FORMAT_RECORD_TYPE};
    size_t field = fields[fuzz_below(chance, sizeof fields)];
    size_t bytes = field == FORMAT_RECORD_LENGTH || field == FORMAT_RECORD_TYPE ? 4 : 8;
    fuzz_change(chance, record + field, bytes, at);
}

/* A kind, a count, an id, a field of a schema: the words at the front of a payload, mostly. */
static inline void fuzz_mutate_payload(uint8_t *payload, size_t size, uint64_t *chance)
{
    size_t words = size / 4, front = words < 18 ? words : 18;
    if (words == 0)
        return;
    size_t word = fuzz_below(chance, fuzz_below(chance, 4) == 0 ? words : front);
    fuzz_change(chance, payload + word * 4, 4, fuzz_below(chance, 8));
}

static inline void fuzz_mutate_wal(struct fuzz_file *file, uint64_t *chance)
{
    size_t offsets[FUZZ_RECORDS + 1], count = fuzz_find_records(file, offsets);
    if (count == 0 || fuzz_below(chance, 16) == 0) {
        fuzz_mutate_window(file, chance);
        return;
    }
    size_t index = fuzz_below(chance, count), at = offsets[index];
    size_t total = offsets[index + 1] - at, other = offsets[fuzz_below(chance, count + 1)];
    switch (fuzz_below(chance, 8)) {
    case 0:
        fuzz_splice(file, at, total, 0);
        break;
    case 1:
        fuzz_duplicate(file, at, total, other);
        break;
    case 2: /* longer or shorter, with a length that says so */
        if (fuzz_below(chance, 2))
            fuzz_splice(file, at + total, 0, 8);
        else if (total > FORMAT_RECORD_BYTES)
            fuzz_splice(file, at + total - 8, 8, 0);
        format_put32(file->bytes + at + FORMAT_RECORD_LENGTH,
                     (uint32_t)(total - FORMAT_RECORD_BYTES + 8 * fuzz_below(chance, 3) - 8));
        break;
    case 3:
        fuzz_mutate_record_header(file->bytes + at, at, chance);
        break;
    default:
        fuzz_mutate_payload(file->bytes + at + FORMAT_RECORD_BYTES, total - FORMAT_RECORD_BYTES,
                            chance);
    }
}

/* ---- manifests */

/* Where the first of the collections, or a random one, begins; 0: there is none. */
static inline size_t fuzz_find_collection(const struct fuzz_file *file, uint64_t *chance)
{
    uint64_t at = FORMAT_MANIFEST_BYTES +
                  (uint64_t)format_get32(file->bytes + FORMAT_MANIFEST_FILES) * FORMAT_FILE_BYTES;
    for (;;) {
        if (at > file->size || file->size - at < FORMAT_COLLECTION_BYTES)
            return 0;
        const uint8_t *fixed = file->bytes + at;
        uint64_t next =
            at + FORMAT_COLLECTION_BYTES +
            format_align(format_get32(fixed + FORMAT_COLLECTION_NAME_BYTES), 8) +
            (uint64_t)format_get32(fixed + FORMAT_COLLECTION_SEGMENTS) * FORMAT_REFERENCE_BYTES +
            format_get32(fixed + FORMAT_COLLECTION_CALIBRATION);
        if (next >= file->size || fuzz_below(chance, 3) == 0)
            return (size_t)at;
        at = next;
    }
}

static inline void fuzz_mutate_collection(struct fuzz_file *file, uint64_t *chance)
{
    size_t at = fuzz_find_collection(file, chance);
    if (at == 0)
        return;
    uint8_t *fixed = file->bytes + at;
    if (fuzz_below(chance, 2)) {
        size_t word = fuzz_below(chance, FORMAT_COLLECTION_BYTES / 4) * 4;
        fuzz_change(chance, fixed + word, 4, fuzz_below(chance, 8));
        return;
    }
    uint32_t count = format_get32(fixed + FORMAT_COLLECTION_SEGMENTS);
    size_t name = (size_t)format_align(format_get32(fixed + FORMAT_COLLECTION_NAME_BYTES), 8);
    size_t first = at + FORMAT_COLLECTION_BYTES + name;
    if (count == 0 || first > file->size || count > (file->size - first) / FORMAT_REFERENCE_BYTES)
        return;
    size_t reference = first + fuzz_below(chance, count) * FORMAT_REFERENCE_BYTES;
    switch (fuzz_below(chance, 4)) {
    case 0:
        format_put32(fixed + FORMAT_COLLECTION_SEGMENTS, count + 1);
        fuzz_duplicate(file, reference, FORMAT_REFERENCE_BYTES, reference);
        break;
    case 1:
        format_put32(fixed + FORMAT_COLLECTION_SEGMENTS, count - 1);
        fuzz_splice(file, reference, FORMAT_REFERENCE_BYTES, 0);
        break;
    default:
        fuzz_change(chance, file->bytes + reference + fuzz_below(chance, 6) * 4, 4,
                    fuzz_below(chance, 16));
    }
}

static inline void fuzz_mutate_entry(struct fuzz_file *file, uint64_t *chance)
{
    uint32_t count = format_get32(file->bytes + FORMAT_MANIFEST_FILES);
    if (count == 0 || count > (file->size - FORMAT_MANIFEST_BYTES) / FORMAT_FILE_BYTES)
        return;
    size_t at = FORMAT_MANIFEST_BYTES + fuzz_below(chance, count) * (size_t)FORMAT_FILE_BYTES;
    switch (fuzz_below(chance, 4)) {
    case 0:
        format_put32(file->bytes + FORMAT_MANIFEST_FILES, count + 1);
        fuzz_duplicate(file, at, FORMAT_FILE_BYTES, at);
        break;
    case 1:
        format_put32(file->bytes + FORMAT_MANIFEST_FILES, count - 1);
        fuzz_splice(file, at, FORMAT_FILE_BYTES, 0);
        break;
    default:
        fuzz_change(chance, file->bytes + at + fuzz_below(chance, 6) * 4, 4,
                    fuzz_below(chance, 16));
    }
}

static inline void fuzz_mutate_manifest(struct fuzz_file *file, uint64_t *chance)
{
    if (file->size < FORMAT_MANIFEST_BYTES) {
        fuzz_mutate_window(file, chance);
        return;
    }
    switch (fuzz_below(chance, 6)) {
    case 0:
        fuzz_change(chance,
                    file->bytes + FORMAT_MANIFEST_COMMIT +
                        fuzz_below(chance, (FORMAT_MANIFEST_BYTES - FORMAT_MANIFEST_COMMIT) / 4) *
                            4,
                    4, fuzz_below(chance, 16));
        break;
    case 1:
        fuzz_mutate_entry(file, chance);
        break;
    case 2:
        fuzz_mutate_window(file, chance);
        break;
    default:
        fuzz_mutate_collection(file, chance);
    }
}

/* ---- inputs */

static inline void fuzz_mutate_file(struct fuzz_file *file, uint64_t *chance)
{
    uint32_t how = fuzz_below(chance, 16);
    if (how == 0)
        fuzz_mutate_length(file, chance);
    else if (how == 1)
        fuzz_mutate_number(file, chance);
    else if (how < 4 || file->kind == FUZZ_CURRENT || file->kind >= FUZZ_LOCK)
        fuzz_mutate_window(file, chance);
    else if (file->kind == FUZZ_MANIFEST)
        fuzz_mutate_manifest(file, chance);
    else if (file->kind == FUZZ_WAL)
        fuzz_mutate_wal(file, chance);
    else
        fuzz_mutate_segment(file, chance);
}

/* A file more, a file less, one under another name. */
static inline void fuzz_mutate_list(struct fuzz_files *files, uint64_t *chance)
{
    struct fuzz_file *file = &files->file[fuzz_below(chance, files->count)];
    switch (fuzz_below(chance, 4)) {
    case 0:
        if (files->count == FUZZ_FILES)
            break;
        files->file[files->count] = *file;
        file = &files->file[files->count++];
        uint8_t *copy = fuzz_memory(NULL, file->size);
        memcpy(copy, file->bytes, file->size);
        file->bytes = copy;
        file->number++;
        break;
    case 1:
        free(file->bytes);
        *file = files->file[--files->count];
        break;
    case 2:
        file->kind = (enum fuzz_kind)fuzz_below(chance, FUZZ_KINDS);
        break;
    default:
        file->number = (uint8_t)fuzz_below(chance, 16);
    }
}

static inline size_t fuzz_mutate_bytes(uint8_t *data, size_t size, size_t capacity, unsigned seed)
{
    (void)seed;
    return LLVMFuzzerMutate(data, size, capacity);
}

static inline size_t fuzz_mutate_files(uint8_t *data, size_t size, size_t capacity, unsigned seed)
{
    struct fuzz_files files;
    uint64_t chance = seed;
    if (fuzz_below(&chance, 64) == 0)
        return LLVMFuzzerMutate(data, size, capacity);
    fuzz_unpack(data, size, &files);
    for (uint32_t i = 1 + fuzz_below(&chance, 3); i > 0 && files.count > 0; i--) {
        if (fuzz_below(&chance, 32) == 0)
            fuzz_mutate_list(&files, &chance);
        else
            fuzz_mutate_file(&files.file[fuzz_below(&chance, files.count)], &chance);
    }
    if (fuzz_below(&chance, 8) == 0)
        files.choice = (uint8_t)fuzz_next(&chance);
    if (fuzz_below(&chance, 8) != 0)
        fuzz_repair(&files, fuzz_below(&chance, 4) != 0);
    size_t used = files.count == 0 ? SIZE_MAX : fuzz_pack(&files, NULL, 0);
    if (used <= capacity)
        fuzz_pack(&files, data, capacity);
    fuzz_files_end(&files);
    return used <= capacity ? used : LLVMFuzzerMutate(data, size, capacity);
}

#undef FUZZ_RECORDS

#endif
