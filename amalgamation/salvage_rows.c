/* salvage_rows.c: rows out of damaged segment files.
 *
 * A row is saved where each block that holds a byte of its id or of its vector matches its
 * checksum. Blocks are read one at a time into memory of our own and never mapped: a device that
 * fails under a mapping faults the process, and failing devices are what salvage is for.
 *
 * Ids have three sources. Their own section; the sorted copy beside it, in segments whose rows are
 * in another order; and where ids ascend, their neighbours: among live rows no two have the same
 * id, so between id a at row i and id b at row j, with nothing deleted in between, b - a == j - i
 * leaves only one id for each row. Links, codes, curves and filters are not looked at.
 *
 * Memory: 8 bytes and 2 bits for each row of the part at hand, a bit for each block of the file. */
#include "salvage.h"

#include <string.h>

/* ------------------------------------------------------------------ blocks */

static const struct manifest_file *salvage_listed(const struct salvage *salvage, uint64_t number)
{
    size_t low = 0, high = salvage->manifest.file_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (salvage->manifest.files[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < salvage->manifest.file_count && salvage->manifest.files[low].number == number
               ? &salvage->manifest.files[low]
               : NULL;
}

OMENDB_INTERNAL void salvage_file_close(struct salvage *salvage, struct salvage_file *file)
{
    segment_file_close(file->file);
    memory_free(&salvage->memory, file->reported, file->words * sizeof *file->reported);
    for (size_t i = 0; i < SALVAGE_LANES; i++)
        memory_free(&salvage->memory, file->lanes[i].bytes, BLOCK_BYTES);
    memset(file, 0, sizeof *file);
}

static void salvage_sentence(void *context, const char *sentence)
{
    salvage_tell(context, "%s", sentence);
}

OMENDB_INTERNAL int salvage_file_open(struct salvage *salvage, enum storage_kind kind,
                                      uint64_t number, struct salvage_file *file)
{
    const struct manifest_file *listed = salvage_listed(salvage, number);
    uint64_t size = listed != NULL && listed->kind == (uint32_t)kind ? listed->size : 0;
    memset(file, 0, sizeof *file);
    int code = segment_file_salvage(&salvage->storage, kind, number, size, salvage_sentence,
                                    salvage, &file->file, &file->sound);
    if (code == OMENDB_OK && !file->sound && salvage->by_name) {
        segment_file_close(file->file);
        file->file = NULL;
        code = error_set(OMENDB_CORRUPT,
                         "%s-%llu is lost: there is no manifest to compare its "
                         "footer with",
                         kind == STORAGE_SEGMENT ? "seg" : "ovl", (unsigned long long)number);
    }
    if (code != OMENDB_OK)
        return code;
    file->words = (size_t)(file->file->blocks.size >> BLOCK_SHIFT) / 64 + 1;
    file->reported = memory_zalloc(&salvage->memory, file->words * sizeof *file->reported);
    code = file->reported == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (size_t i = 0; i < SALVAGE_LANES && code == OMENDB_OK; i++) {
        file->lanes[i].block = UINT64_MAX;
        file->lanes[i].bytes = memory_alloc(&salvage->memory, BLOCK_BYTES);
        code = file->lanes[i].bytes == NULL ? OMENDB_NOMEM : OMENDB_OK;
    }
    if (code != OMENDB_OK)
        salvage_file_close(salvage, file);
    return code;
}

/* Brings a block into the lane; a bad one is reported once. OMENDB_CORRUPT: it is bad. */
static int salvage_fill(struct salvage *salvage, struct salvage_file *file, size_t lane,
                        uint64_t block)
{
    uint64_t bit = UINT64_C(1) << (block & 63);
    if (file->lanes[lane].block != block) {
        int code = blocks_read(&file->file->blocks, block, file->lanes[lane].bytes);
        if (code == OMENDB_NOMEM)
            return code;
        file->lanes[lane].block = block;
        file->lanes[lane].good = code == OMENDB_OK;
        if (code != OMENDB_OK && (file->reported[block >> 6] & bit) == 0) {
            file->reported[block >> 6] |= bit;
            salvage_error(salvage, code);
        }
    }
    return file->lanes[lane].good ? OMENDB_OK : OMENDB_CORRUPT;
}

/* Copies bytes of a section, which was bounded against the file when that was opened. */
static int salvage_read(struct salvage *salvage, struct salvage_file *file, size_t lane,
                        uint64_t offset, void *out, size_t size)
{
    uint8_t *to = out;
    while (size > 0) {
        size_t within = (size_t)(offset & (BLOCK_BYTES - 1));
        size_t run = size < BLOCK_BYTES - within ? size : (size_t)BLOCK_BYTES - within;
        int code = salvage_fill(salvage, file, lane, offset >> BLOCK_SHIFT);
        if (code != OMENDB_OK)
            return code;
        memcpy(to, file->lanes[lane].bytes + within, run);
        to += run;
        offset += run;
        size -= run;
    }
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ deletions */

static int salvage_bit(const uint64_t *bits, uint32_t row)
{
    return (int)((bits[row >> 6] >> (row & 63)) & 1);
}

static void salvage_set_bit(uint64_t *bits, uint32_t row)
{
    bits[row >> 6] |= UINT64_C(1) << (row & 63);
}

/* Opens the overlay file, unless it is the one at hand. */
static int salvage_overlay_open(struct salvage *salvage, uint64_t number)
{
    if (salvage->overlay.file != NULL && salvage->overlay.file->number == number)
        return OMENDB_OK;
    salvage_file_close(salvage, &salvage->overlay);
    return salvage_file_open(salvage, STORAGE_OVERLAY, number, &salvage->overlay);
}

/* Opens the overlay of the part. *found = 0: there is none, or nothing of it can be read. */
static int salvage_overlay_find(struct salvage *salvage, const struct salvage_reference *reference,
                                int *found)
{
    *found = 0;
    if (reference->overlay_file == 0 || salvage->overlay_lost == reference->overlay_file)
        return OMENDB_OK;
    int code = salvage_overlay_open(salvage, reference->overlay_file);
    if (code != OMENDB_OK) {
        salvage->overlay_lost = salvage->quiet ? 0 : reference->overlay_file;
        return salvage_error(salvage, code);
    }
    const struct segment_file *file = salvage->overlay.file;
    *found = reference->overlay_part < file->part_count &&
             file->parts[reference->overlay_part].target_file == reference->file &&
             file->parts[reference->overlay_part].target_part == reference->part;
    return OMENDB_OK;
}

/* Marks the deleted ones of `rows` rows; dead NULL: only looks. *whole = 0: some, or all, of the
 * deletions cannot be read. *found: see salvage_overlay_find. */
static int salvage_read_deletions(struct salvage *salvage,
                                  const struct salvage_reference *reference, uint32_t rows,
                                  uint64_t *dead, int *whole, int *found)
{
    int code = salvage_overlay_find(salvage, reference, found);
    *whole = *found || reference->overlay_file == 0;
    if (!*found)
        return code;
    const struct section_range range =
        segment_section(salvage->overlay.file, reference->overlay_part, SECTION_TOMBSTONES);
    for (uint64_t at = 0; at + sizeof(uint32_t) <= range.length; at += sizeof(uint32_t)) {
        uint32_t row = UINT32_MAX;
        code = salvage_read(salvage, &salvage->overlay, 0, range.offset + at, &row, sizeof row);
        if (code == OMENDB_NOMEM)
            return code;
        if (code != OMENDB_OK)
            *whole = 0;
        else if (dead != NULL && row < rows)
            salvage_set_bit(dead, row);
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int salvage_look_at_deletions(struct salvage *salvage,
                                              struct salvage_reference *reference)
{
    int whole, found, before = salvage->quiet;
    salvage->quiet = 1;
    int code = salvage_read_deletions(salvage, reference, 0, NULL, &whole, &found);
    salvage->quiet = before;
    if (!whole) /* its blocks are to be reported when they are read in earnest */
        salvage_file_close(salvage, &salvage->overlay);
    reference->doubtful |= !whole;
    return code;
}

/* ------------------------------------------------------------------ one part */

/* Which rows have documents in the overlay, looked at from the first row on. Where entries are
 * damaged, those around them tell between which rows theirs lie, and all of these are theirs where
 * they are not more. */
struct salvage_updated {
    uint32_t count, place; /* entries, and the first one that was not read yet */
    uint32_t begin, end;   /* rows that the entries from `first` on are of, or may be of */
    uint32_t first;
    int sure;
};

struct salvage_rows {
    struct salvage *salvage;
    struct salvage_file *file;
    const struct salvage_reference *reference;
    struct salvage_collection *collection;
    const struct part_info *info;
    uint64_t *ids;
    uint64_t *known; /* a bit a row: its id was read or follows */
    uint64_t *dead;  /* a bit a row */
    size_t words;
    /* a run of lost rows that is not reported yet */
    uint32_t lost_begin, lost_last, lost_count;
    uint32_t lost_end; /* the next row goes on with it; deleted ones lie between */
    const char *why;
    struct salvage_updated updated;
    uint32_t bare;       /* rows whose documents are damaged, */
    uint32_t older;      /* whose newest ones are, */
    uint32_t perhaps;    /* which are saved with their own documents, and may have newer ones */
    int overlay_is_lost; /* all deletions and updates are */
};

static void salvage_report_lost(struct salvage_rows *rows)
{
    const struct salvage_reference *reference = rows->reference;
    uint32_t last = rows->lost_last;
    if (rows->lost_count == 0)
        return;
    rows->salvage->result->lost_rows += rows->lost_count;
    if (salvage_bit(rows->known, rows->lost_begin)) /* so are all of them: why is the same */
        salvage_tell(rows->salvage,
                     "seg-%llu: part %u: rows %u to %u of collection \"%s\" are lost, %u records, "
                     "from id %llu to id %llu: %s",
                     (unsigned long long)reference->file, reference->part, rows->lost_begin, last,
                     rows->collection->target->name, rows->lost_count,
                     (unsigned long long)rows->ids[rows->lost_begin],
                     (unsigned long long)rows->ids[last], rows->why);
    else
        salvage_tell(rows->salvage,
                     "seg-%llu: part %u: rows %u to %u of collection \"%s\" are lost, %u records: "
                     "%s",
                     (unsigned long long)reference->file, reference->part, rows->lost_begin, last,
                     rows->collection->target->name, rows->lost_count, rows->why);
    rows->lost_count = 0;
}

static void salvage_lose(struct salvage_rows *rows, uint32_t row, const char *why)
{
    if (rows->lost_count != 0 && (rows->lost_end != row || rows->why != why))
        salvage_report_lost(rows);
    if (rows->lost_count == 0)
        rows->lost_begin = row;
    rows->lost_count++;
    rows->lost_last = row;
    rows->lost_end = row + 1;
    rows->why = why;
}

static int salvage_read_ids(struct salvage_rows *rows, uint32_t *missing)
{
    struct section_range range =
        segment_section(rows->file->file, rows->reference->part, SECTION_IDS);
    *missing = 0;
    for (uint32_t row = 0; row < rows->info->rows; row++) {
        int code = salvage_read(rows->salvage, rows->file, 0, range.offset + row * UINT64_C(8),
                                &rows->ids[row], sizeof(uint64_t));
        if (code == OMENDB_NOMEM)
            return code;
        if (code == OMENDB_OK)
            salvage_set_bit(rows->known, row);
        else
            ++*missing;
    }
    return OMENDB_OK;
}

/* Ids from the sorted copy, which tells the row of each. */
static int salvage_sorted_ids(struct salvage_rows *rows)
{
    const struct segment_file *file = rows->file->file;
    uint32_t part = rows->reference->part;
    struct section_range ids = segment_section(file, part, SECTION_SORTED_IDS);
    struct section_range places = segment_section(file, part, SECTION_SORTED_ROWS);
    if (ids.length == 0 || places.length == 0)
        return OMENDB_OK;
    for (uint32_t i = 0; i < rows->info->rows; i++) {
        uint64_t id;
        uint32_t row;
        int code = salvage_read(rows->salvage, rows->file, 0, ids.offset + i * UINT64_C(8), &id,
                                sizeof id);
        if (code == OMENDB_OK)
            code = salvage_read(rows->salvage, rows->file, 1, places.offset + i * UINT64_C(4), &row,
                                sizeof row);
        if (code == OMENDB_NOMEM)
            return code;
        if (code == OMENDB_OK && row < rows->info->rows && !salvage_bit(rows->known, row)) {
            rows->ids[row] = id;
            salvage_set_bit(rows->known, row);
        }
    }
    return OMENDB_OK;
}

/* The rows between `first`, of id `low`, and `last`, of id `high`, both included: all of them are
 * live, so their ids differ. */
static void salvage_follow_ids(struct salvage_rows *rows, uint32_t first, uint64_t low,
                               uint32_t last, uint64_t high)
{
    if (high < low || high - low != last - first)
        return;
    for (uint32_t row = first; row <= last; row++) {
        rows->ids[row] = low + (row - first);
        salvage_set_bit(rows->known, row);
    }
}

/* Ascending ids that follow from those around them, or from the least and the largest that the
 * footer tells. */
static void salvage_neighbour_ids(struct salvage_rows *rows)
{
    uint32_t count = rows->info->rows;
    for (uint32_t row = 0; row < count;) {
        uint32_t first = row, last;
        if (salvage_bit(rows->known, row)) {
            row++;
            continue;
        }
        while (row < count && !salvage_bit(rows->known, row))
            row++;
        first -= first > 0;
        last = row < count ? row : count - 1;
        int alive = 1;
        for (uint32_t i = first; i <= last; i++)
            alive &= !salvage_bit(rows->dead, i);
        if (alive)
            salvage_follow_ids(
                rows, first,
                salvage_bit(rows->known, first) ? rows->ids[first] : rows->info->smallest_id, last,
                salvage_bit(rows->known, last) ? rows->ids[last] : rows->info->largest_id);
    }
}

static void salvage_report_deletions(const struct salvage_rows *rows)
{
    salvage_tell(rows->salvage,
                 rows->overlay_is_lost
                     ? "ovl-%llu: part %u: deletions and updates in seg-%llu, part %u, are lost: "
                       "records of collection \"%s\" that were deleted or replaced may be back, "
                       "and updated ones have the metadata that they had before"
                     : "ovl-%llu: part %u: deletions in seg-%llu, part %u, are lost: records of "
                       "collection \"%s\" that were deleted or replaced may be back",
                 (unsigned long long)rows->reference->overlay_file, rows->reference->overlay_part,
                 (unsigned long long)rows->reference->file, rows->reference->part,
                 rows->collection->target->name);
}

static struct section_range salvage_updated_section(const struct salvage_rows *rows)
{
    return segment_section(rows->salvage->overlay.file, rows->reference->overlay_part,
                           SECTION_OVERLAY_ROWS);
}

/* Ids, deletions and how many rows were updated. */
static int salvage_load(struct salvage_rows *rows)
{
    struct salvage *salvage = rows->salvage;
    uint32_t missing = 0;
    int whole = 1, found = 0;
    rows->words = rows->info->rows / 64 + 1;
    rows->ids = memory_array(&salvage->memory, rows->info->rows, sizeof *rows->ids);
    rows->known = memory_zalloc(&salvage->memory, rows->words * sizeof *rows->known);
    rows->dead = memory_zalloc(&salvage->memory, rows->words * sizeof *rows->dead);
    if (rows->ids == NULL || rows->known == NULL || rows->dead == NULL)
        return OMENDB_NOMEM;
    int code = salvage_read_deletions(salvage, rows->reference, rows->info->rows, rows->dead,
                                      &whole, &found);
    rows->overlay_is_lost = !whole && !found;
    if (code == OMENDB_OK && !whole)
        salvage_report_deletions(rows);
    if (found)
        rows->updated.count = (uint32_t)(salvage_updated_section(rows).length / sizeof(uint32_t));
    if (code == OMENDB_OK)
        code = salvage_read_ids(rows, &missing);
    if (code == OMENDB_OK && missing != 0)
        code = salvage_sorted_ids(rows);
    /* In a part of which deletions are not known two rows may have one id. */
    if (code == OMENDB_OK && missing != 0 && !rows->reference->doubtful && rows->file->sound &&
        (rows->info->flags & SEGMENT_IDS_ASCEND) != 0)
        salvage_neighbour_ids(rows);
    return code;
}

/* The next entry, or, where it is damaged, all up to one that is not. There is one. */
static int salvage_next_updated(struct salvage_rows *rows)
{
    struct salvage_updated *updated = &rows->updated;
    const uint64_t offset = salvage_updated_section(rows).offset;
    const uint32_t begin = updated->end;
    uint32_t row = 0;
    int good = 0;
    updated->first = updated->place;
    while (updated->place < updated->count && !good) {
        int code = salvage_read(rows->salvage, &rows->salvage->overlay, 1,
                                offset + updated->place * UINT64_C(4), &row, sizeof row);
        if (code == OMENDB_NOMEM)
            return code;
        /* Rows ascend: one that does not is damaged, too. */
        good = code == OMENDB_OK && row >= begin && row < rows->info->rows;
        updated->place += !good;
    }
    const uint32_t damaged = updated->place - updated->first;
    row = good ? row : rows->info->rows;
    updated->begin = damaged == 0 ? row : begin;
    updated->end = damaged == 0 ? row + 1 : row;
    updated->place += damaged == 0;
    updated->sure = damaged == 0 || row - begin == damaged;
    return OMENDB_OK;
}

/* The place of a row among those that were updated; UINT32_MAX: it was not, or, *perhaps = 1, that
 * is not known. Rows are asked for in ascending order. */
static int salvage_updated_place(struct salvage_rows *rows, uint32_t row, uint32_t *place,
                                 int *perhaps)
{
    struct salvage_updated *updated = &rows->updated;
    int code = OMENDB_OK;
    *place = UINT32_MAX;
    *perhaps = 0;
    while (row >= updated->end && updated->place < updated->count && code == OMENDB_OK)
        code = salvage_next_updated(rows);
    if (code != OMENDB_OK || row < updated->begin || row >= updated->end)
        return code;
    *perhaps = !updated->sure;
    if (updated->sure)
        *place = updated->first + (row - updated->begin);
    return code;
}

/* Where document `index` of a part of a file lies. OMENDB_CORRUPT: not known. */
static int salvage_document_place(struct salvage *salvage, struct salvage_file *file, uint32_t part,
                                  uint32_t index, uint64_t *begin, uint64_t *end)
{
    struct section_range ends = segment_section(file->file, part, SECTION_DOCUMENT_ENDS);
    struct section_range all = segment_section(file->file, part, SECTION_DOCUMENTS);
    int code = OMENDB_OK;
    *begin = *end = 0;
    if (ends.length == 0)
        return OMENDB_OK;
    if (index >= ends.length / sizeof *end)
        return OMENDB_CORRUPT;
    if (index != 0)
        code = salvage_read(salvage, file, 0, ends.offset + (index - UINT64_C(1)) * 8, begin,
                            sizeof *begin);
    if (code == OMENDB_OK)
        code = salvage_read(salvage, file, 0, ends.offset + index * UINT64_C(8), end, sizeof *end);
    if (code == OMENDB_OK &&
        (*begin > *end || *end > all.length || *end - *begin > DOCUMENT_BYTES_MAX))
        code = OMENDB_CORRUPT;
    *begin += all.offset;
    *end += all.offset;
    return code;
}

/* Document `index` of a part of a file, NULL: it is empty. OMENDB_CORRUPT: it is damaged. */
static int salvage_document(struct salvage *salvage, struct salvage_file *file, uint32_t part,
                            uint32_t index, const uint8_t **document)
{
    uint64_t begin = 0, end = 0;
    *document = NULL;
    int code = salvage_document_place(salvage, file, part, index, &begin, &end);
    if (code != OMENDB_OK || begin == end)
        return code;
    code = salvage_read(salvage, file, 0, begin, salvage->document, (size_t)(end - begin));
    if (code == OMENDB_OK && document_check(salvage->document, (size_t)(end - begin)) != NULL)
        code = OMENDB_CORRUPT;
    if (code == OMENDB_OK)
        *document = salvage->document;
    return code;
}

/* Key and metadata of a row, NULL: it has none, or they are damaged. Where only those are that an
 * update gave, what the row was written with is saved: the key is the same, and the metadata was
 * right once. All of that is told at the end. */
static int salvage_row_document(struct salvage_rows *rows, uint32_t row, const uint8_t **document)
{
    uint32_t place;
    int perhaps;
    *document = NULL;
    int code = salvage_updated_place(rows, row, &place, &perhaps);
    if (code != OMENDB_OK)
        return code;
    if (place != UINT32_MAX) {
        code = salvage_document(rows->salvage, &rows->salvage->overlay,
                                rows->reference->overlay_part, place, document);
        if (code != OMENDB_CORRUPT)
            return code;
    }
    code = salvage_document(rows->salvage, rows->file, rows->reference->part, row, document);
    rows->bare += code == OMENDB_CORRUPT;
    rows->older += code == OMENDB_OK && place != UINT32_MAX;
    rows->perhaps += code == OMENDB_OK && perhaps;
    return code == OMENDB_CORRUPT ? OMENDB_OK : code;
}

static void salvage_report_documents(const struct salvage_rows *rows)
{
    static const char *const sentences[] = {
        "seg-%llu: part %u: key and metadata of %u records of collection \"%s\" are damaged; they "
        "are saved without",
        "seg-%llu: part %u: of %u records of collection \"%s\" the updated metadata is damaged; "
        "they are saved with what they had before",
        "seg-%llu: part %u: which of %u records of collection \"%s\" were updated is damaged; they "
        "are saved with the metadata that they had before"};
    const uint32_t counts[] = {rows->bare, rows->older, rows->perhaps};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        if (counts[i] != 0)
            salvage_tell(rows->salvage, sentences[i], (unsigned long long)rows->reference->file,
                         rows->reference->part, counts[i], rows->collection->target->name);
    }
}

static int salvage_row(struct salvage_rows *rows, uint64_t vectors, uint32_t row)
{
    struct salvage *salvage = rows->salvage;
    uint32_t stride = rows->info->vector_stride;
    if (!salvage_bit(rows->known, row)) {
        salvage_lose(rows, row, "their ids are damaged");
        return OMENDB_OK;
    }
    int code = salvage_read(salvage, rows->file, 1, vectors + (uint64_t)row * stride,
                            salvage->vector, stride);
    if (code == OMENDB_CORRUPT) {
        salvage_lose(rows, row, "their vectors are damaged");
        return OMENDB_OK;
    }
    const uint8_t *document = NULL;
    if (code == OMENDB_OK)
        code = salvage_row_document(rows, row, &document);
    if (code == OMENDB_OK)
        code = salvage_put(salvage, rows->collection, rows->ids[row], salvage->vector, document);
    if (code == OMENDB_INVALID) {
        salvage_lose(rows, row, "they are no records of this collection");
        return OMENDB_OK;
    }
    return code;
}

static int salvage_each_row(struct salvage_rows *rows)
{
    uint64_t vectors =
        segment_section(rows->file->file, rows->reference->part, SECTION_VECTORS).offset;
    int code = OMENDB_OK;
    for (uint32_t row = 0; row < rows->info->rows && code == OMENDB_OK; row++) {
        if (!salvage_bit(rows->dead, row))
            code = salvage_row(rows, vectors, row);
        else if (rows->lost_end == row)
            rows->lost_end++; /* a deleted row does not end a run of lost ones */
    }
    salvage_report_lost(rows);
    salvage_report_documents(rows);
    return code;
}

/* Why the part cannot be read as one of the collection, or NULL. Sections that are there have the
 * bytes that the part's rows ask for. */
static const char *salvage_misfit(const struct salvage_rows *rows)
{
    const struct part_info *info = rows->info;
    const struct collection *target = rows->collection->target;
    const struct segment_file *file = rows->file->file;
    uint32_t part = rows->reference->part;
    if (info->collection != rows->collection->id)
        return "it belongs to another collection";
    if (info->dim != target->schema.dim || info->scalar != target->schema.scalar ||
        info->metric != target->schema.metric || info->vector_stride != target->vector_bytes)
        return "its vectors are of another kind";
    if (info->rows > GRAPH_MAX_ROWS || segment_section(file, part, SECTION_IDS).length == 0 ||
        segment_section(file, part, SECTION_VECTORS).length == 0)
        return "it has no ids, no vectors or too many rows";
    return NULL;
}

/* What became of the rows that were given: those whose ids were there already took the place of
 * older ones. code: of giving them; where that failed those are counted that went before. */
static int salvage_rows_done(struct salvage_rows *rows, uint64_t before, uint64_t put, int code)
{
    struct salvage *salvage = rows->salvage;
    uint64_t after = 0;
    if (code == OMENDB_OK)
        code = salvage_flush(salvage);
    if (code == OMENDB_OK)
        code = salvage_count(rows->collection->target, &after);
    uint64_t given = salvage->put - put;
    if (rows->reference->doubtful)
        salvage->result->doubtful += given;
    if (code == OMENDB_OK && after - before < given)
        salvage_tell(salvage,
                     "seg-%llu: part %u: %llu ids of collection \"%s\" have more than one row; "
                     "those in this file, the newer ones, were kept",
                     (unsigned long long)rows->reference->file, rows->reference->part,
                     (unsigned long long)(given - (after - before)),
                     rows->collection->target->name);
    return code;
}

OMENDB_INTERNAL int salvage_part(struct salvage *salvage, struct salvage_file *file,
                                 const struct salvage_reference *reference)
{
    struct salvage_rows rows = {.salvage = salvage, .file = file, .reference = reference};
    uint64_t before = 0, put = salvage->put;
    rows.collection = salvage_find(salvage, reference->collection);
    if (rows.collection == NULL || rows.collection->dropped)
        return OMENDB_OK;
    if (reference->part >= file->file->part_count) {
        salvage_tell(salvage,
                     "seg-%llu: part %u is not there: all that collection \"%s\" had in "
                     "it is lost",
                     (unsigned long long)reference->file, reference->part,
                     rows.collection->target->name);
        return OMENDB_OK;
    }
    rows.info = &file->file->parts[reference->part];
    if (rows.info->rows == 0)
        return OMENDB_OK;
    const char *misfit = salvage_misfit(&rows);
    if (misfit != NULL) {
        salvage->result->lost_rows += rows.info->rows;
        salvage_tell(salvage, "seg-%llu: part %u of collection \"%s\" is lost: %s",
                     (unsigned long long)reference->file, reference->part,
                     rows.collection->target->name, misfit);
        return OMENDB_OK;
    }
    int code = salvage_load(&rows);
    if (code == OMENDB_OK)
        code = salvage_count(rows.collection->target, &before);
    if (code == OMENDB_OK)
        code = salvage_each_row(&rows);
    code = salvage_rows_done(&rows, before, put, code);
    memory_free(&salvage->memory, rows.ids, rows.info->rows * sizeof *rows.ids);
    memory_free(&salvage->memory, rows.known, rows.words * sizeof *rows.known);
    memory_free(&salvage->memory, rows.dead, rows.words * sizeof *rows.dead);
    return code;
}
