/* rows.c: the cursor of omendb_scan. It holds the version and a sorted list of (id, source, row),
 * made at the beginning: a source is a memtable, a segment, or the transaction's own changes. */
#include "rows.h"

#include <string.h>

#define ROWS_OWN UINT32_MAX /* source: a change of the transaction */
/* A cursor may lie in the readers' share of the reserve, where it stays while it is open: only so
 * many do. */
#define ROWS_IN_RESERVE 2

struct rows_entry {
    uint64_t id;
    uint32_t source; /* memtables first, then segments */
    uint32_t row;
};

struct omendb_rows {
    uint32_t magic;
    omendb *db;
    struct collection *collection;
    struct version *version;
    omendb_txn *txn; /* NULL: none */
    struct txn_cursor cursor;
    struct rows_entry *entries;
    size_t count, capacity, next;
};

static int rows_compare(const void *left, const void *right)
{
    const struct rows_entry *a = left, *b = right;
    return a->id < b->id ? -1 : a->id > b->id;
}

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

static int rows_add_memtable(struct omendb_rows *rows, uint32_t source, uint64_t commit,
                             uint64_t from, uint64_t to)
{
    const struct memtable *memtable = rows->version->memtables[source];
    uint32_t limit = memtable_visible_rows(memtable, commit);
    int code = OMENDB_OK;
    for (uint32_t row = 0; row < limit && code == OMENDB_OK; row++) {
        uint64_t id = memtable_id(memtable, row), end = tombstones_get(memtable->tombstones, row);
        if (id >= from && id <= to && (end == 0 || end > commit) &&
            txn_find(rows->txn, rows->collection, id) == NULL)
            code = rows_add(rows, id, source, row);
    }
    return code;
}

static int rows_add_segment(struct omendb_rows *rows, uint32_t index, uint64_t commit,
                            uint64_t from, uint64_t to)
{
    const struct segment *segment = rows->version->segments[index];
    int code = OMENDB_OK;
    if (segment->info.smallest_id > to || segment->info.largest_id < from)
        return OMENDB_OK;
    for (uint32_t row = 0; row < segment->info.rows && code == OMENDB_OK; row++) {
        uint64_t id;
        code = segment_id(segment, row, &id);
        if (code == OMENDB_OK && id >= from && id <= to &&
            segment_row_visible(segment, row, commit) &&
            txn_find(rows->txn, rows->collection, id) == NULL)
            code = rows_add(rows, id, rows->version->memtable_count + index, row);
    }
    return code;
}

static int rows_add_own(struct omendb_rows *rows, uint64_t from, uint64_t to)
{
    int code = OMENDB_OK;
    for (size_t i = 0; rows->txn != NULL && i < rows->txn->write_count && code == OMENDB_OK; i++) {
        const struct txn_write *write = &rows->txn->writes[i];
        if (write->collection == rows->collection && write->vector != NULL && write->id >= from &&
            write->id <= to)
            code = rows_add(rows, write->id, ROWS_OWN, (uint32_t)i);
    }
    return code;
}

static int rows_make(struct collection *collection, omendb_txn *txn, uint64_t from, uint64_t to,
                     omendb_rows **rows)
{
    omendb *db = collection->db;
    uint64_t commit;
    int code = OMENDB_OK;
    *rows = NULL;
    omendb_rows *made = memory_zalloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->magic = ROWS_MAGIC;
    made->db = db;
    made->collection = collection_reference(collection);
    made->version = version_acquire_newest(collection, &commit);
    made->txn = txn;
    if (made->txn != NULL)
        txn_add_cursor(made->txn, &made->cursor);
    commit = txn != NULL ? txn->snapshot : commit;
    for (uint32_t i = 0; i < made->version->memtable_count && code == OMENDB_OK; i++)
        code = rows_add_memtable(made, i, commit, from, to);
    for (uint32_t i = 0; i < made->version->segment_count && code == OMENDB_OK; i++)
        code = rows_add_segment(made, i, commit, from, to);
    if (code == OMENDB_OK)
        code = rows_add_own(made, from, to);
    if (code != OMENDB_OK) {
        rows_free(made);
        return code;
    }
    if (made->count > 1)
        sort_array(made->entries, made->count, sizeof *made->entries, rows_compare);
    atomic_fetch_add(&db->children, 1);
    atomic_fetch_add(&db->open_cursors, 1);
    *rows = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL int rows_open(struct collection *collection, omendb_txn *txn, uint64_t from,
                              uint64_t to, omendb_rows **rows)
{
    int few = atomic_load(&collection->db->open_cursors) < ROWS_IN_RESERVE;
    if (few)
        memory_begin_reading();
    int code = rows_make(collection, txn, from, to, rows);
    if (few)
        memory_end_reading();
    return code;
}

static int rows_vector(const omendb_rows *rows, const struct rows_entry *entry,
                       const uint8_t **vector)
{
    const struct version *version = rows->version;
    if (entry->source == ROWS_OWN) {
        *vector = rows->txn->writes[entry->row].vector;
        return *vector != NULL
                   ? OMENDB_OK
                   : error_set(OMENDB_NOTFOUND, "id %llu was deleted by this transaction",
                               (unsigned long long)entry->id);
    }
    if (entry->source < version->memtable_count) {
        *vector = memtable_vector(version->memtables[entry->source], entry->row);
        return OMENDB_OK;
    }
    return segment_vector(version->segments[entry->source - version->memtable_count], entry->row,
                          vector);
}

OMENDB_INTERNAL int rows_next(omendb_rows *rows, uint64_t *id, int vector_type, void *vector)
{
    const uint8_t *stored;
    if (rows->cursor.ended)
        return error_set(OMENDB_MISUSE, "the transaction of this cursor has ended");
    if (rows->next >= rows->count)
        return OMENDB_DONE;
    const struct rows_entry *entry = &rows->entries[rows->next];
    if (vector != NULL) {
        int code = rows_vector(rows, entry, &stored);
        if (code == OMENDB_OK && (vector_type < OMENDB_F32 || vector_type > OMENDB_B1))
            code = OMENDB_INVALID;
        if (code == OMENDB_OK)
            code = scalar_export(&rows->collection->format, stored, (omendb_scalar)vector_type,
                                 vector);
        if (code != OMENDB_OK)
            return code;
    }
    if (id != NULL)
        *id = entry->id;
    rows->next++;
    return OMENDB_OK;
}

OMENDB_INTERNAL void rows_free(omendb_rows *rows)
{
    rows->magic = 0;
    if (rows->txn != NULL && !rows->cursor.ended)
        txn_remove_cursor(rows->txn, &rows->cursor);
    version_release(rows->version);
    collection_release(rows->collection);
    memory_free(&rows->db->memory, rows->entries, rows->capacity * sizeof *rows->entries);
    memory_free(&rows->db->memory, rows, sizeof *rows);
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
#undef ROWS_IN_RESERVE
