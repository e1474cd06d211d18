/* overlay.c: see overlay.h.
 *
 * In a file a part of an overlay has, beside the tombstones, four sections: the rows, ascending; of
 * each the commit of its document, and where that ends among all of them; the documents.
 *
 * Rejected: pages of pointers, as tombstones have (4 KiB for the first update among 512 rows, and
 * documents are mostly changed here and there); versions that are freed one by one as soon as no
 * transaction sees them (a reader without a lock may be at them: each would have to wait for the
 * versions of the collection that were there, where a checkpoint, which the log asks for at the
 * latest after as many bytes, frees all of them at once); a file of documents apart from that of
 * tombstones (a checkpoint after a deletion would not write the documents again, an eighth of the
 * rows' at most, for another file in each entry of the manifest). */
#include "overlay.h"

#include "database.h"

#define OVERLAY_BLOCK_MIN ((size_t)1 << 10)  /* bytes of a block of documents; each next one is */
#define OVERLAY_BLOCK_MAX ((size_t)64 << 10) /* twice as large, up to this */
#define OVERLAY_ROW_BYTES 20                 /* of a row in a file, beside its document */

struct overlay_block {
    struct overlay_block *next;
    size_t capacity, used; /* of `bytes` */
    uint8_t bytes[];
};

struct overlay_entry {
    uint64_t row;
    uint64_t commit;
    const uint8_t *document;
    uint32_t previous; /* entry of the row, or GRAPH_NO_ROW */
};

/* ------------------------------------------------------------------ lives */

static size_t overlay_size(uint32_t recents)
{
    return sizeof(struct overlay) + recents * sizeof(struct overlay_recent *);
}

OMENDB_INTERNAL struct overlay *overlay_create(struct memory *memory, uint32_t recents)
{
    struct overlay *overlay = memory_zalloc(memory, overlay_size(recents));
    if (overlay == NULL)
        return NULL;
    atomic_init(&overlay->references, 1);
    overlay->memory = memory;
    overlay->capacity = recents;
    return overlay;
}

OMENDB_INTERNAL struct overlay *overlay_reference(struct overlay *overlay)
{
    if (overlay != NULL)
        atomic_fetch_add_explicit(&overlay->references, 1, memory_order_relaxed);
    return overlay;
}

static void overlay_recent_release(struct overlay_recent *recent)
{
    if (recent == NULL ||
        atomic_fetch_sub_explicit(&recent->references, 1, memory_order_acq_rel) != 1)
        return;
    while (recent->blocks != NULL) {
        struct overlay_block *block = recent->blocks;
        recent->blocks = block->next;
        memory_free(recent->memory, block, sizeof *block + block->capacity);
    }
    idmap_destroy(&recent->rows);
    rows_store_destroy(&recent->entries);
    memory_free(recent->memory, recent, sizeof *recent);
}

static struct overlay_recent *overlay_recent_create(struct memory *memory)
{
    struct overlay_recent *recent = memory_zalloc(memory, sizeof *recent);
    if (recent == NULL)
        return NULL;
    atomic_init(&recent->references, 1);
    recent->memory = memory;
    rows_store_init(&recent->entries, memory, sizeof(struct overlay_entry));
    idmap_init(&recent->rows, memory, &recent->entries, 0);
    return recent;
}

static size_t overlay_marks_size(uint32_t rows)
{
    return sizeof(struct overlay_marks) + ((size_t)rows / 64 + 1) * sizeof(uint64_t);
}

OMENDB_INTERNAL struct overlay_marks *overlay_marks_create(struct memory *memory, uint32_t rows)
{
    struct overlay_marks *marks = memory_zalloc(memory, overlay_marks_size(rows));
    if (marks == NULL)
        return NULL;
    atomic_init(&marks->references, 1);
    marks->memory = memory;
    marks->rows = rows;
    return marks;
}

static struct overlay_marks *overlay_marks_reference(struct overlay_marks *marks)
{
    if (marks != NULL)
        atomic_fetch_add_explicit(&marks->references, 1, memory_order_relaxed);
    return marks;
}

OMENDB_INTERNAL void overlay_marks_release(struct overlay_marks *marks)
{
    if (marks != NULL &&
        atomic_fetch_sub_explicit(&marks->references, 1, memory_order_acq_rel) == 1)
        memory_free(marks->memory, marks, overlay_marks_size(marks->rows));
}

static size_t overlay_base_size(uint32_t rows)
{
    return sizeof(struct overlay_base) + ((size_t)rows / 64 + 1) * sizeof(uint64_t);
}

OMENDB_INTERNAL void overlay_base_release(struct overlay_base *base)
{
    if (base == NULL || atomic_fetch_sub_explicit(&base->references, 1, memory_order_acq_rel) != 1)
        return;
    shared_file_release(base->file);
    memory_free(base->memory, base, overlay_base_size(base->count));
}

OMENDB_INTERNAL void overlay_release(struct overlay *overlay)
{
    while (overlay != NULL &&
           atomic_fetch_sub_explicit(&overlay->references, 1, memory_order_acq_rel) == 1) {
        struct overlay *older = overlay->older;
        for (uint32_t i = 0; i < overlay->recent_count; i++)
            overlay_recent_release(overlay->recents[i]);
        overlay_base_release(overlay->base);
        overlay_marks_release(overlay->marks);
        memory_free(overlay->memory, overlay, overlay_size(overlay->capacity));
        overlay = older;
    }
}

/* ------------------------------------------------------------------ layers */

static void overlay_add_recent(struct overlay *overlay, struct overlay_recent *recent)
{
    atomic_fetch_add_explicit(&recent->references, 1, memory_order_relaxed);
    overlay->recents[overlay->recent_count++] = recent;
}

/* `made` has the capacity for all of them, and none yet. */
static void overlay_put_layers(struct overlay *made, const struct overlay *overlay)
{
    for (uint32_t i = 0; i < overlay->recent_count; i++)
        overlay_add_recent(made, overlay->recents[i]);
    made->commit = overlay->commit;
    made->base = overlay->base;
    if (made->base != NULL)
        atomic_fetch_add_explicit(&made->base->references, 1, memory_order_relaxed);
}

OMENDB_INTERNAL struct overlay *overlay_extend(struct memory *memory, struct overlay *overlay,
                                               uint32_t rows)
{
    const uint32_t count = overlay == NULL ? 0 : overlay->recent_count;
    struct overlay *made = overlay_create(memory, count + 1);
    struct overlay_recent *recent = overlay_recent_create(memory);
    struct overlay_marks *marks = overlay != NULL ? overlay_marks_reference(overlay->marks)
                                  : rows != 0     ? overlay_marks_create(memory, rows)
                                                  : NULL;
    if (made == NULL || recent == NULL || (rows != 0 && marks == NULL)) {
        overlay_release(made);
        overlay_recent_release(recent);
        overlay_marks_release(marks);
        return NULL;
    }
    made->marks = marks;
    if (overlay != NULL) {
        overlay_put_layers(made, overlay);
        made->older = overlay_reference(overlay->older);
    }
    made->recents[made->recent_count++] = recent;
    return made;
}

/* Without those before it; NULL: no memory. */
static struct overlay *overlay_alone(const struct overlay *overlay)
{
    struct overlay *made = overlay_create(overlay->memory, overlay->recent_count);
    if (made == NULL)
        return NULL;
    overlay_put_layers(made, overlay);
    made->marks = overlay_marks_reference(overlay->marks);
    return made;
}

OMENDB_INTERNAL struct overlay *overlay_without_unread(omendb *db, const struct overlay *overlay)
{
    const struct overlay *from = overlay->older;
    uint64_t end = overlay->commit;
    int all = 1;
    for (; from != NULL && all; end = from->commit, from = from->older)
        all = txn_reads_between(db, from->commit, end);
    struct overlay *made = all ? NULL : overlay_alone(overlay), *last = made;
    end = overlay->commit;
    for (from = overlay->older; from != NULL && made != NULL; from = from->older) {
        if (txn_reads_between(db, from->commit, end)) {
            last->older = overlay_alone(from);
            if (last->older == NULL) {
                overlay_release(made);
                return NULL;
            }
            last = last->older;
        }
        end = from->commit;
    }
    return made;
}

OMENDB_INTERNAL struct overlay_recent *overlay_top(const struct overlay *overlay)
{
    if (overlay == NULL || overlay->recent_count == 0)
        return NULL;
    struct overlay_recent *top = overlay->recents[overlay->recent_count - 1];
    return top->frozen ? NULL : top;
}

OMENDB_INTERNAL void overlay_freeze(struct overlay *overlay)
{
    struct overlay_recent *top = overlay_top(overlay);
    if (top != NULL)
        top->frozen = 1;
}

/* Whether a checkpoint at the commit has all of the layer. */
static int overlay_is_written(const struct overlay_recent *recent, uint64_t commit)
{
    return recent->frozen && atomic_load_explicit(&recent->newest, memory_order_acquire) <= commit;
}

OMENDB_INTERNAL void overlay_settle(struct overlay *into, const struct overlay *overlay,
                                    struct overlay_marks *marks, struct overlay_base *base,
                                    struct overlay *older, uint64_t commit)
{
    for (uint32_t i = 0; overlay != NULL && i < overlay->recent_count; i++) {
        if (!overlay_is_written(overlay->recents[i], commit))
            overlay_add_recent(into, overlay->recents[i]);
    }
    into->marks = overlay_marks_reference(marks);
    into->base = base;
    into->older = older;
    into->commit = commit;
}

/* ------------------------------------------------------------------ appending */

/* A block that has room for them; what is left in the one before stays unused. */
static int overlay_reserve_block(struct overlay_recent *recent, size_t bytes)
{
    const struct overlay_block *newest = recent->blocks;
    if (bytes == 0 || (newest != NULL && newest->capacity - newest->used >= bytes))
        return OMENDB_OK;
    size_t capacity = newest == NULL ? OVERLAY_BLOCK_MIN : newest->capacity * 2;
    capacity = capacity > OVERLAY_BLOCK_MAX ? OVERLAY_BLOCK_MAX : capacity;
    capacity = capacity < bytes ? bytes : capacity;
    struct overlay_block *block = memory_alloc(recent->memory, memory_add(sizeof *block, capacity));
    if (block == NULL)
        return OMENDB_NOMEM;
    *block = (struct overlay_block){recent->blocks, capacity, 0};
    recent->blocks = block;
    return OMENDB_OK;
}

OMENDB_INTERNAL int overlay_reserve(struct overlay_recent *recent, uint32_t entries, size_t bytes)
{
    if (entries > GRAPH_MAX_ROWS - recent->count)
        return error_set(OMENDB_TOOBIG,
                         "%u updates since the last checkpoint, and %u more: at most 2^31; make a "
                         "checkpoint",
                         recent->count, entries);
    int code = rows_store_reserve(&recent->entries, recent->count + entries);
    if (code == OMENDB_OK)
        code = idmap_reserve(&recent->rows, entries);
    return code == OMENDB_OK ? overlay_reserve_block(recent, bytes) : code;
}

static void overlay_mark(struct overlay_marks *marks, uint32_t row)
{
    const uint64_t bit = UINT64_C(1) << (row % 64);
    if (marks == NULL || row >= marks->rows)
        return;
    if ((atomic_fetch_or_explicit(&marks->word[row / 64], bit, memory_order_release) & bit) == 0)
        atomic_fetch_add_explicit(&marks->count, 1, memory_order_release);
}

OMENDB_INTERNAL void overlay_append(const struct overlay *overlay, uint32_t row, uint64_t commit,
                                    const uint8_t *document)
{
    struct overlay_recent *recent = overlay->recents[overlay->recent_count - 1];
    const uint32_t index = recent->count, size = document_size(document);
    struct overlay_entry entry = {row, commit, NULL, idmap_find(&recent->rows, row)};
    if (size != 0) {
        uint8_t *copy = recent->blocks->bytes + recent->blocks->used;
        memcpy(copy, document, size);
        recent->blocks->used += size;
        entry.document = copy;
    }
    struct rows_view entries = rows_store_view(&recent->entries);
    memcpy(rows_at(&entries, index), &entry, sizeof entry);
    recent->count++;
    recent->document_bytes += size;
    idmap_insert(&recent->rows, row, index);
    OMENDB_YIELD("overlay_append, in the table");
    overlay_mark(overlay->marks, row);
    if (commit > atomic_load_explicit(&recent->newest, memory_order_relaxed))
        atomic_store_explicit(&recent->newest, commit, memory_order_release);
}

OMENDB_INTERNAL void overlay_mark_recents(const struct overlay *overlay, uint64_t commit)
{
    for (uint32_t i = 0; i < overlay->recent_count; i++) {
        const struct overlay_recent *recent = overlay->recents[i];
        struct rows_view entries = rows_store_view(&recent->entries);
        for (uint32_t index = 0; index < recent->count; index++) {
            struct overlay_entry entry;
            memcpy(&entry, rows_at(&entries, index), sizeof entry);
            if (entry.commit > commit)
                overlay_mark(overlay->marks, (uint32_t)entry.row);
        }
    }
}

/* ------------------------------------------------------------------ in a file */

static int overlay_bad(const struct overlay_base *base, const char *why)
{
    return error_set(OMENDB_CORRUPT, "ovl-%llu: part %u: %s; " ERROR_RESTORE,
                     (unsigned long long)base->file->entry.number, base->part, why);
}

static int overlay_number(const struct overlay_base *base, struct section_range range,
                          uint64_t index, size_t bytes, void *out)
{
    struct block_file *file = &base->file->file->blocks;
    const uint64_t offset = range.offset + index * bytes;
    int code = blocks_touch(file, offset, bytes);
    if (code == OMENDB_OK)
        memcpy(out, file->base + offset, bytes);
    return code;
}

static int overlay_read_rows(const struct overlay_base *base, uint32_t rows,
                             struct overlay_marks *marks)
{
    int code = OMENDB_OK;
    for (uint32_t i = 0, last = 0; i < base->count && code == OMENDB_OK; i++) {
        uint32_t row = 0;
        code = overlay_number(base, base->rows, i, sizeof row, &row);
        if (code == OMENDB_OK && (row >= rows || (i != 0 && row <= last)))
            code = overlay_bad(base, "rows with documents that do not ascend, or are none");
        if (code == OMENDB_OK)
            overlay_mark(marks, row);
        last = row;
    }
    return code;
}

/* All of it: damage is told by opening, where a checkpoint, which reads it to write the next one,
 * could only fail again and again. */
static int overlay_touch(const struct overlay_base *base)
{
    const struct section_range all[] = {base->rows, base->commits, base->ends, base->documents};
    int code = OMENDB_OK;
    for (size_t i = 0; i < sizeof all / sizeof all[0] && code == OMENDB_OK; i++)
        code = all[i].length == 0
                   ? OMENDB_OK
                   : blocks_touch(&base->file->file->blocks, all[i].offset, all[i].length);
    return code;
}

OMENDB_INTERNAL int overlay_base_open(struct memory *memory, struct shared_file *file,
                                      uint32_t part, uint64_t commit, uint32_t rows,
                                      struct overlay_marks *marks, struct overlay_base **base)
{
    const struct segment_file *in = file->file;
    const struct section_range range = segment_section(in, part, SECTION_OVERLAY_ROWS);
    const uint32_t count = (uint32_t)(range.length / sizeof(uint32_t));
    struct overlay_base *made = memory_zalloc(memory, overlay_base_size(count));
    *base = NULL;
    if (made == NULL)
        return OMENDB_NOMEM;
    atomic_init(&made->references, 1);
    made->memory = memory;
    made->file = shared_file_reference(file);
    made->part = part;
    made->commit = commit;
    made->rows = range;
    made->commits = segment_section(in, part, SECTION_OVERLAY_COMMITS);
    made->ends = segment_section(in, part, SECTION_DOCUMENT_ENDS);
    made->documents = segment_section(in, part, SECTION_DOCUMENTS);
    made->count = count;
    int code = OMENDB_OK;
    if (made->rows.length > rows * UINT64_C(4))
        code = overlay_bad(made, "more rows with documents than the segment has");
    if (code == OMENDB_OK && marks != NULL)
        code = overlay_touch(made);
    if (code == OMENDB_OK && marks != NULL)
        code = overlay_read_rows(made, rows, marks);
    if (code == OMENDB_OK)
        *base = made;
    else
        overlay_base_release(made);
    return code;
}

OMENDB_INTERNAL int overlay_open(struct memory *memory, struct shared_file *file, uint32_t part,
                                 uint64_t commit, uint32_t rows, struct overlay **overlay)
{
    *overlay = NULL;
    if (segment_section(file->file, part, SECTION_OVERLAY_ROWS).length == 0)
        return OMENDB_OK;
    struct overlay *made = overlay_create(memory, 0);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->commit = commit;
    made->marks = overlay_marks_create(memory, rows);
    int code = made->marks == NULL
                   ? OMENDB_NOMEM
                   : overlay_base_open(memory, file, part, commit, rows, made->marks, &made->base);
    if (code == OMENDB_OK)
        *overlay = made;
    else
        overlay_release(made);
    return code;
}

/* ------------------------------------------------------------------ finding */

/* 1: the layer has the row at the commit. */
static int overlay_find_recent(const struct overlay_recent *recent, uint32_t row, uint64_t commit,
                               struct overlay_version *found)
{
    uint32_t index = idmap_find(&recent->rows, row);
    if (index == GRAPH_NO_ROW)
        return 0;
    struct rows_view entries = rows_store_view(&recent->entries);
    while (index != GRAPH_NO_ROW) {
        struct overlay_entry entry;
        memcpy(&entry, rows_at(&entries, index), sizeof entry);
        if (entry.commit <= commit) {
            *found = (struct overlay_version){entry.commit, entry.document};
            return 1;
        }
        index = entry.previous;
    }
    return 0;
}

static int overlay_read_base(struct overlay_base *base, uint32_t index,
                             struct overlay_version *found)
{
    struct block_file *file = &base->file->file->blocks;
    uint64_t begin = 0, end = 0;
    int code = overlay_number(base, base->commits, index, sizeof found->commit, &found->commit);
    if (code == OMENDB_OK && index != 0)
        code = overlay_number(base, base->ends, index - UINT64_C(1), sizeof begin, &begin);
    if (code == OMENDB_OK)
        code = overlay_number(base, base->ends, index, sizeof end, &end);
    if (code != OMENDB_OK)
        return code;
    if (begin > end || end > base->documents.length || end - begin > DOCUMENT_BYTES_MAX)
        return overlay_bad(base, "a document lies outside of all of them");
    if (found->commit == 0 || found->commit > base->commit)
        return overlay_bad(base, "a document of no commit");
    if (begin == end)
        return OMENDB_OK;
    code = blocks_touch(file, base->documents.offset + begin, end - begin);
    if (code != OMENDB_OK)
        return code;
    const uint8_t *document = file->base + base->documents.offset + begin;
    const uint64_t bit = UINT64_C(1) << (index % 64);
    /* What is mapped may change under us: it is not trusted later either. */
    if (blocks_are_mapped(file) ||
        (atomic_load_explicit(&base->checked[index / 64], memory_order_relaxed) & bit) == 0) {
        const char *wrong = document_check(document, (size_t)(end - begin));
        if (wrong != NULL)
            return overlay_bad(base, wrong);
        atomic_fetch_or_explicit(&base->checked[index / 64], bit, memory_order_relaxed);
    }
    found->document = document;
    return OMENDB_OK;
}

static int overlay_find_base(struct overlay_base *base, uint32_t row, struct overlay_version *found)
{
    uint32_t low = 0, high = base->count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        uint32_t at;
        int code = overlay_number(base, base->rows, middle, sizeof at, &at);
        if (code != OMENDB_OK)
            return code;
        if (at == row)
            return overlay_read_base(base, middle, found);
        if (at < row)
            low = middle + 1;
        else
            high = middle;
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int overlay_find(const struct overlay *overlay, uint32_t row, uint64_t commit,
                                 struct overlay_version *found)
{
    *found = (struct overlay_version){0, NULL};
    if (!overlay_may_have(overlay, row))
        return OMENDB_OK;
    for (;; overlay = overlay->older) {
        for (uint32_t i = overlay->recent_count; i-- > 0;) {
            if (overlay_find_recent(overlay->recents[i], row, commit, found))
                return OMENDB_OK;
        }
        if (commit >= overlay->commit || overlay->older == NULL)
            break;
    }
    int code = overlay->base == NULL ? OMENDB_OK : overlay_find_base(overlay->base, row, found);
    if (code == OMENDB_OK && found->commit > commit)
        *found = (struct overlay_version){0, NULL};
    return code;
}

OMENDB_INTERNAL uint32_t overlay_next(const struct overlay *overlay, uint32_t row)
{
    const uint32_t rows = overlay->marks->rows;
    while (row < rows) {
        const uint64_t left = overlay_word(overlay, row / 64) >> (row % 64);
        if (left != 0)
            return row + graph_lowest_bit(left);
        row = (row / 64 + 1) * 64;
    }
    return UINT32_MAX;
}

/* ------------------------------------------------------------------ measures */

OMENDB_INTERNAL uint64_t overlay_newest(const struct overlay *overlay)
{
    uint64_t newest = 0;
    for (uint32_t i = 0; overlay != NULL && i < overlay->recent_count; i++) {
        const uint64_t commit =
            atomic_load_explicit(&overlay->recents[i]->newest, memory_order_acquire);
        newest = commit > newest ? commit : newest;
    }
    return newest;
}

static int overlay_is_between(uint64_t commit, uint64_t after, uint64_t until)
{
    return commit > after && commit <= until;
}

OMENDB_INTERNAL uint64_t overlay_count_between(const struct overlay *overlay, uint64_t after,
                                               uint64_t until)
{
    uint64_t count = 0;
    for (uint32_t i = 0; overlay != NULL && i < overlay->recent_count; i++) {
        const struct overlay_recent *recent = overlay->recents[i];
        struct rows_view entries = rows_store_view(&recent->entries);
        for (uint32_t index = 0; index < recent->count; index++) {
            struct overlay_entry entry;
            memcpy(&entry, rows_at(&entries, index), sizeof entry);
            count += (uint64_t)overlay_is_between(entry.commit, after, until);
        }
    }
    const struct overlay_base *base = overlay == NULL ? NULL : overlay->base;
    for (uint32_t i = 0; base != NULL && base->commit > after && i < base->count; i++) {
        uint64_t commit;
        /* One that cannot be read may be pinned. */
        count += overlay_number(base, base->commits, i, sizeof commit, &commit) != OMENDB_OK ||
                 overlay_is_between(commit, after, until);
    }
    return count;
}

OMENDB_INTERNAL uint64_t overlay_bytes(const struct overlay *overlay)
{
    if (overlay == NULL)
        return 0;
    uint64_t bytes = (uint64_t)overlay_count(overlay) * OVERLAY_ROW_BYTES;
    for (uint32_t i = 0; i < overlay->recent_count; i++)
        bytes += overlay->recents[i]->document_bytes;
    return bytes + (overlay->base == NULL ? 0 : overlay->base->documents.length);
}

#undef OVERLAY_BLOCK_MIN
#undef OVERLAY_BLOCK_MAX
#undef OVERLAY_ROW_BYTES
