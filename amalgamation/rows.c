/* rows.c: the cursor of omendb_scan. It holds the version and shows its rows in the order of their
 * ids: those of each segment as its index of ids has them, a few at a time; those of memtables and
 * of the transaction from a sorted list that is made at the beginning, as they lie in the order of
 * commits.
 *
 * Under a filter all that matches in a memtable or segment goes to that list, too, where columns
 * and indexes tell that it is little. Where it is more, or not known, a cursor need not be opened
 * to be read to its end: rows are asked when their turn comes, those of segments by columns.
 *
 * What it shows is that of the beginning, although rows are looked at later: a row that ends since
 * ends at a later commit, and changes that the transaction makes since are told by their numbers.
 */
#include "rows.h"

#include "prefetch.h"

#include <string.h>

#define ROWS_OWN       UINT32_MAX /* source: a change of the transaction */
#define ROWS_AHEAD     16
#define ROWS_FEW(rows) ((rows) / 64 + 64) /* that are listed, of so many */
/* A cursor may lie in the readers' share of the reserve, where it stays while it is open: only so
 * many do. */
#define ROWS_IN_RESERVE 2

struct rows_entry {
    uint64_t id;
    uint32_t source; /* memtable; from their number on, segment */
    uint32_t row;
};

/* A segment, and the next of its rows that are to be shown. */
struct rows_segment {
    struct segment *segment;
    const struct overlay *overlay;
    struct column_filter plan; /* zeroed: all are shown, or those that match are in the list */
    uint64_t place;            /* of the ascending ids: where to go on */
    uint64_t last;             /* id before that */
    uint32_t next, count;
    uint64_t ids[ROWS_AHEAD];
    uint32_t rows[ROWS_AHEAD];
};

struct omendb_rows {
    uint32_t magic;
    omendb *db;
    struct collection *collection;
    struct version *version;
    omendb_txn *txn; /* NULL: none */
    struct txn_cursor cursor;
    size_t own_count; /* changes of the transaction when it was opened */
    uint64_t commit, to;
    const omendb_filter *filter; /* held; NULL: all */
    int shows_vectors;
    /* The record that was shown last: of a segment, or entry number shown_row of the list. */
    int has_shown;
    const struct segment *shown;
    const struct overlay *shown_overlay;
    size_t shown_row;
    struct rows_entry *entries;
    size_t count, capacity, next;
    uint32_t segment_count;
    struct rows_segment segments[];
};

static int rows_compare(const void *left, const void *right)
{
    const struct rows_entry *a = left, *b = right;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* ------------------------------------------------------------------ the list */

static int rows_add(struct omendb_rows *rows, uint64_t id, uint32_t source, uint32_t row)
{
    if (rows->count == rows->capacity) {
        size_t capacity = rows->capacity * 2 + 64;
        struct rows_entry *entries =
            memory_resize(&rows->db->memory, rows->entries, rows->capacity * sizeof *entries,
                          memory_multiply(capacity, sizeof *entries));
        if (entries == NULL)
            return OMENDB_NOMEM;
        rows->entries = entries;
        rows->capacity = capacity;
    }
    rows->entries[rows->count++] = (struct rows_entry){id, source, row};
    return OMENDB_OK;
}

/* Whether the transaction had changed the record when the cursor was opened. */
static int rows_is_own(const struct omendb_rows *rows, uint64_t id)
{
    if (rows->own_count == 0)
        return 0;
    const struct txn_write *own = txn_find(rows->txn, rows->collection, id);
    return own != NULL && (size_t)(own - rows->txn->writes) < rows->own_count;
}

/* A source whose matches are few. */
struct rows_few {
    struct omendb_rows *rows;
    uint32_t source;
    uint64_t from;
};

static int rows_add_match(void *context, const struct location *location,
                          const struct txn_write *own)
{
    const struct rows_few *few = context;
    uint64_t id;
    int code = location_id(location, &id);
    (void)own;
    if (code != OMENDB_OK || id < few->from || id > few->rows->to)
        return code;
    return rows_add(few->rows, id, few->source, location->row);
}

/* *few: 1: all that matches in the source is in the list now. */
static int rows_add_few(struct omendb_rows *rows, uint32_t source, uint32_t stored, uint64_t from,
                        int *few)
{
    const struct search_predicate predicate = {.filter = rows->filter};
    struct search_request request = {.collection = rows->collection, .version = rows->version};
    struct rows_few context = {rows, source, from};
    *few = 0;
    if (rows->filter == NULL)
        return OMENDB_OK;
    request.commit = rows->commit;
    request.txn = rows->own_count != 0 ? rows->txn : NULL;
    request.predicate = &predicate;
    return search_each_of_few(&request, source, ROWS_FEW(stored), rows_add_match, &context, few);
}

static int rows_add_memtable(struct omendb_rows *rows, uint32_t source, uint64_t from)
{
    const struct memtable *memtable = rows->version->memtables[source];
    uint32_t limit = memtable_visible_rows(memtable, rows->commit);
    int few, code = rows_add_few(rows, source, limit, from, &few);
    for (uint32_t row = 0; row < limit && !few && code == OMENDB_OK; row++) {
        uint64_t id = memtable_id(memtable, row), end = tombstones_get(memtable->tombstones, row);
        if (id >= from && id <= rows->to && (end == 0 || end > rows->commit) &&
            !rows_is_own(rows, id))
            code = rows_add(rows, id, source, row);
    }
    return code;
}

static int rows_add_own(struct omendb_rows *rows, uint64_t from)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < rows->own_count && code == OMENDB_OK; i++) {
        const struct txn_write *write = &rows->txn->writes[i];
        if (write->collection == rows->collection && write->vector != NULL && write->id >= from &&
            write->id <= rows->to)
            code = rows_add(rows, write->id, ROWS_OWN, (uint32_t)i);
    }
    return code;
}

/* ------------------------------------------------------------------ segments */

static int rows_refuse_order(const struct rows_segment *source, uint64_t id)
{
    return error_set(
        OMENDB_CORRUPT,
        "seg-%llu: part %u: id %llu comes after id %llu in the index of ids; " ERROR_RESTORE,
        (unsigned long long)source->segment->file->entry.number, source->segment->part,
        (unsigned long long)id, (unsigned long long)source->last);
}

/* The next row of the segment, shown or not. *shown: 1: it is. At the last one place becomes the
 * number of rows. */
static int rows_step(const struct omendb_rows *rows, struct rows_segment *source, int *shown)
{
    const struct segment *segment = source->segment;
    uint64_t id;
    uint32_t row;
    int code = segment_at_place(segment, source->place, &id, &row);
    if (code == OMENDB_OK && id < source->last)
        code = rows_refuse_order(source, id);
    if (code != OMENDB_OK)
        return code;
    *shown = 0;
    source->place = id > rows->to ? segment->info.rows : source->place + 1;
    source->last = id;
    if (id > rows->to || !segment_row_visible(segment, row, rows->commit) || rows_is_own(rows, id))
        return OMENDB_OK;
    source->ids[source->count] = id;
    source->rows[source->count] = row;
    *shown = 1;
    return OMENDB_OK;
}

/* The next few rows that are shown. An error waits until those before it were. */
static int rows_fill(const struct omendb_rows *rows, struct rows_segment *source)
{
    const struct rows_view *vectors = &source->segment->full.vectors;
    int shown, code = OMENDB_OK;
    source->next = source->count = 0;
    while (source->count < ROWS_AHEAD && source->place < source->segment->info.rows &&
           code == OMENDB_OK) {
        code = rows_step(rows, source, &shown);
        if (code != OMENDB_OK || !shown)
            continue;
        if (rows->shows_vectors)
            prefetch_bytes(rows_at(vectors, source->rows[source->count]), vectors->stride);
        source->count++;
    }
    return source->count != 0 ? OMENDB_OK : code;
}

/* At the first row that may be shown. */
static int rows_begin_segment(struct omendb_rows *rows, uint32_t index, uint64_t from)
{
    struct rows_segment *source = &rows->segments[index];
    struct segment *segment = rows->version->segments[index];
    const uint32_t stored = segment->info.rows;
    int few, code;
    source->segment = segment;
    source->overlay = rows->version->segment_overlays[index];
    source->place = stored;
    if (segment->info.smallest_id > rows->to || segment->info.largest_id < from)
        return OMENDB_OK;
    code = rows_add_few(rows, rows->version->memtable_count + index, stored, from, &few);
    if (code != OMENDB_OK || few)
        return code;
    if (rows->filter != NULL)
        code = column_filter_make(&source->plan, &rows->db->memory, rows->filter, segment);
    if (code == OMENDB_OK)
        code = segment_first_place(segment, from, &source->place);
    return code == OMENDB_OK ? rows_fill(rows, source) : code;
}

/* ------------------------------------------------------------------ opening */

static int rows_gather(struct omendb_rows *rows, uint64_t from)
{
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < rows->version->memtable_count && code == OMENDB_OK; i++)
        code = rows_add_memtable(rows, i, from);
    if (code == OMENDB_OK)
        code = rows_add_own(rows, from);
    for (uint32_t i = 0; i < rows->segment_count && code == OMENDB_OK; i++)
        code = rows_begin_segment(rows, i, from);
    if (code == OMENDB_OK && rows->count > 1)
        sort_array(rows->entries, rows->count, sizeof *rows->entries, rows_compare);
    return code;
}

static size_t rows_bytes(uint32_t segments)
{
    return sizeof(struct omendb_rows) + segments * sizeof(struct rows_segment);
}

static int rows_make(struct collection *collection, omendb_txn *txn, const omendb_filter *filter,
                     uint64_t from, uint64_t to, omendb_rows **rows)
{
    omendb *db = collection->db;
    uint64_t commit;
    *rows = NULL;
    struct version *version = version_acquire_newest(collection, &commit);
    omendb_rows *made = memory_zalloc(&db->memory, rows_bytes(version->segment_count));
    if (made == NULL) {
        version_release(version);
        return OMENDB_NOMEM;
    }
    made->magic = ROWS_MAGIC;
    made->db = db;
    made->collection = collection_reference(collection);
    made->version = version;
    made->segment_count = version->segment_count;
    made->txn = txn;
    if (txn != NULL)
        txn_add_cursor(txn, &made->cursor);
    made->own_count = txn != NULL ? txn->write_count : 0;
    made->commit = txn != NULL ? txn->snapshot : commit;
    made->to = to;
    made->filter = filter_hold(filter);
    int code = rows_gather(made, from);
    if (code != OMENDB_OK) {
        rows_free(made);
        return code;
    }
    atomic_fetch_add(&db->children, 1);
    atomic_fetch_add(&db->open_cursors, 1);
    *rows = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL int rows_open(struct collection *collection, omendb_txn *txn,
                              const omendb_filter *filter, uint64_t from, uint64_t to,
                              omendb_rows **rows)
{
    int few = atomic_load(&collection->db->open_cursors) < ROWS_IN_RESERVE;
    if (few)
        memory_begin_reading();
    int code = rows_make(collection, txn, filter, from, to, rows);
    if (few)
        memory_end_reading();
    return code;
}

/* ------------------------------------------------------------------ moving */

/* Of an entry that is none of the transaction. */
static struct location rows_location(const omendb_rows *rows, const struct rows_entry *entry)
{
    const struct version *version = rows->version;
    const uint32_t memtables = version->memtable_count, segment = entry->source - memtables;
    if (entry->source < memtables)
        return (struct location){version->memtables[entry->source], NULL,
                                 version->memtable_overlays[entry->source], entry->row};
    if (entry->source != ROWS_OWN)
        return (struct location){NULL, version->segments[segment],
                                 version->segment_overlays[segment], entry->row};
    return (struct location){NULL, NULL, NULL, 0};
}

static int rows_listed_vector(const omendb_rows *rows, const struct rows_entry *entry,
                              const uint8_t **vector)
{
    const struct location location = rows_location(rows, entry);
    if (entry->source != ROWS_OWN)
        return location_vector(&location, vector);
    *vector = rows->txn->writes[entry->row].vector;
    return *vector != NULL ? OMENDB_OK
                           : error_set(OMENDB_NOTFOUND, "id %llu was deleted by this transaction",
                                       (unsigned long long)entry->id);
}

/* The segment whose next row has the least id, or NULL: that is in the list, or there is none.
 * *least: that id; OMENDB_DONE: there is none. */
static int rows_choose(omendb_rows *rows, struct rows_segment **chosen, uint64_t *least)
{
    int found = rows->next < rows->count;
    *chosen = NULL;
    *least = found ? rows->entries[rows->next].id : UINT64_MAX;
    for (uint32_t i = 0; i < rows->segment_count; i++) {
        struct rows_segment *source = &rows->segments[i];
        if (source->next == source->count && source->place < source->segment->info.rows) {
            int code = rows_fill(rows, source);
            if (code != OMENDB_OK)
                return code;
        }
        if (source->next == source->count || (found && source->ids[source->next] >= *least))
            continue;
        *chosen = source;
        *least = source->ids[source->next];
        found = 1;
    }
    return found ? OMENDB_OK : OMENDB_DONE;
}

static int rows_copy_vector(omendb_rows *rows, const struct rows_segment *source, int vector_type,
                            void *vector)
{
    const uint8_t *stored;
    int code = source != NULL ? segment_vector(source->segment, source->rows[source->next], &stored)
                              : rows_listed_vector(rows, &rows->entries[rows->next], &stored);
    rows->shows_vectors = 1;
    if (code == OMENDB_OK && (vector_type < OMENDB_F32 || vector_type > OMENDB_B1))
        code = OMENDB_INVALID;
    if (code == OMENDB_OK)
        code = scalar_export(&rows->collection->format, stored, (omendb_scalar)vector_type, vector);
    return code;
}

static int rows_listed_document(const omendb_rows *rows, const struct rows_entry *entry,
                                const uint8_t **document)
{
    const struct location location = rows_location(rows, entry);
    if (entry->source != ROWS_OWN)
        return location_document(&location, rows->commit, document);
    *document = rows->txn->writes[entry->row].document;
    return OMENDB_OK;
}

/* By columns, unless the record was updated. */
static int rows_passes_segment(const omendb_rows *rows, struct rows_segment *source, uint64_t id,
                               int *passes)
{
    const uint32_t row = source->rows[source->next];
    const uint8_t *document;
    if (!overlay_may_have(source->overlay, row)) {
        source->plan.code = OMENDB_OK;
        *passes = column_filter_matches(&source->plan, row);
        return source->plan.code;
    }
    int code = segment_document_at(source->segment, source->overlay, row, rows->commit, &document);
    if (code == OMENDB_OK)
        *passes = filter_matches(rows->filter, id, document);
    return code;
}

/* Whether the filter, if there is one, shows the record that comes next. */
static int rows_passes(const omendb_rows *rows, struct rows_segment *source, uint64_t id,
                       int *passes)
{
    const uint8_t *document;
    *passes = 1;
    if (rows->filter == NULL)
        return OMENDB_OK;
    if (source != NULL)
        return rows_passes_segment(rows, source, id, passes);
    const struct rows_entry *entry = &rows->entries[rows->next];
    if (rows_location(rows, entry).segment != NULL)
        return OMENDB_OK; /* only what matches was listed */
    int code = rows_listed_document(rows, entry, &document);
    if (code == OMENDB_OK)
        *passes = filter_matches(rows->filter, id, document);
    return code;
}

/* Goes on behind the record that comes next. */
static void rows_advance(omendb_rows *rows, struct rows_segment *source)
{
    rows->has_shown = 1;
    rows->shown = source == NULL ? NULL : source->segment;
    rows->shown_overlay = source == NULL ? NULL : source->overlay;
    rows->shown_row = source == NULL ? rows->next++ : source->rows[source->next++];
}

OMENDB_INTERNAL int rows_next(omendb_rows *rows, uint64_t *id, int vector_type, void *vector)
{
    struct rows_segment *source;
    uint64_t least;
    int passes, code;
    if (rows->cursor.ended)
        return error_set(OMENDB_MISUSE, "the transaction of this cursor has ended");
    for (;;) {
        code = rows_choose(rows, &source, &least);
        if (code == OMENDB_OK)
            code = rows_passes(rows, source, least, &passes);
        if (code != OMENDB_OK || passes)
            break;
        rows_advance(rows, source);
    }
    if (code == OMENDB_OK && vector != NULL)
        code = rows_copy_vector(rows, source, vector_type, vector);
    if (code != OMENDB_OK) {
        rows->has_shown = 0;
        return code;
    }
    if (id != NULL)
        *id = least;
    rows_advance(rows, source);
    return OMENDB_OK;
}

OMENDB_INTERNAL int rows_document(const omendb_rows *rows, const uint8_t **document)
{
    if (rows->cursor.ended)
        return error_set(OMENDB_MISUSE, "the transaction of this cursor has ended");
    if (!rows->has_shown)
        return error_set(OMENDB_MISUSE, "the cursor is at no record");
    return rows->shown != NULL
               ? segment_document_at(rows->shown, rows->shown_overlay, (uint32_t)rows->shown_row,
                                     rows->commit, document)
               : rows_listed_document(rows, &rows->entries[rows->shown_row], document);
}

OMENDB_INTERNAL void rows_free(omendb_rows *rows)
{
    size_t bytes = rows_bytes(rows->segment_count);
    rows->magic = 0;
    if (rows->txn != NULL && !rows->cursor.ended)
        txn_remove_cursor(rows->txn, &rows->cursor);
    for (uint32_t i = 0; i < rows->segment_count; i++)
        column_filter_destroy(&rows->segments[i].plan);
    version_release(rows->version);
    filter_free(rows->filter);
    collection_release(rows->collection);
    memory_free(&rows->db->memory, rows->entries, rows->capacity * sizeof *rows->entries);
    memory_free(&rows->db->memory, rows, bytes);
}

OMENDB_INTERNAL int rows_is_valid(const omendb_rows *rows)
{
    return rows != NULL && handle_is(rows, ROWS_MAGIC);
}

OMENDB_INTERNAL omendb *rows_database(const omendb_rows *rows)
{
    return rows->db;
}

OMENDB_INTERNAL const struct collection *rows_collection(const omendb_rows *rows)
{
    return rows->collection;
}

#undef ROWS_OWN
#undef ROWS_AHEAD
#undef ROWS_FEW
#undef ROWS_IN_RESERVE
