/* records.c: from the caller's arrays to a change: vectors converted to the stored type and
 * checked, ids copied, equal ids in one batch settled. Everything that can be refused without
 * knowing the database is refused here, before any lock is taken. */
#include "records.h"

#include <stdio.h>
#include <string.h>

#define RECORDS_MAX_BYTES (UINT64_C(1) << 30)

OMENDB_INTERNAL int records_check_type(uint32_t type)
{
    if (type <= OMENDB_B1)
        return OMENDB_OK;
    return error_set(OMENDB_INVALID,
                     "vector_type is %d; there are f32 (0), f16 (1), bf16 (2), i8 (3), u8 (4) and "
                     "b1 (5)",
                     (int)type);
}

OMENDB_INTERNAL int records_refuse_type(const struct collection *collection, int type)
{
    const char *stored = omendb_scalar_name((int)collection->schema.scalar);
    if (type < OMENDB_F32 || type > OMENDB_B1)
        return records_check_type((uint32_t)type);
    return error_set(OMENDB_INVALID,
                     "collection \"%s\" stores %s vectors, which cannot be given as %s; ask for "
                     "f32%s%s",
                     collection->name, stored, omendb_scalar_name(type),
                     collection->schema.scalar == OMENDB_F32 ? "" : " or ",
                     collection->schema.scalar == OMENDB_F32 ? "" : stored);
}

OMENDB_INTERNAL int records_convert(const struct collection *collection, const void *vector,
                                    uint32_t type, void *out, uint64_t row)
{
    const char *reason = "cannot be stored", *name = omendb_scalar_name((int)type);
    char place[32] = "";
    size_t position = SIZE_MAX;
    int code = records_check_type(type);
    if (code != OMENDB_OK)
        return code;
    code =
        scalar_convert(&collection->format, vector, (omendb_scalar)type, out, &reason, &position);
    if (code == OMENDB_OK)
        return code;
    if (row != RECORDS_ALONE)
        snprintf(place, sizeof place, "row %llu: ", (unsigned long long)row);
    if (position == SIZE_MAX)
        return error_set(code, "%sthe %s vector %s", place, name, reason);
    return error_set(code, "%selement %zu of the %s vector %s", place, position, name, reason);
}

static int records_convert_all(const struct collection *collection, struct records *records,
                               const void *vectors, uint32_t type)
{
    int code = records_check_type(type);
    if (code != OMENDB_OK)
        return code;
    size_t given_bytes = scalar_bytes((omendb_scalar)type, collection->schema.dim);
    for (uint32_t i = 0; i < records->change.count && code == OMENDB_OK; i++)
        code = records_convert(collection, (const uint8_t *)vectors + i * given_bytes, type,
                               records->vectors + i * collection->vector_bytes,
                               records->change.count == 1 ? RECORDS_ALONE : i);
    return code;
}

struct records_id {
    uint64_t id;
    uint32_t row;
};

static int records_compare(const void *left, const void *right)
{
    const struct records_id *a = left, *b = right;
    if (a->id != b->id)
        return a->id < b->id ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* Leaves the last of equal ids (put, delete), keeping the order of the rest. `sorted` is ascending
 * by (id, row). */
static void records_keep_last(struct records *records, const struct records_id *sorted,
                              size_t vector_bytes)
{
    uint32_t kept = 0, count = records->change.count;
    /* An id that is overtaken by a later row is marked by the one value that is no id. */
    for (uint32_t i = 1; i < count; i++) {
        if (sorted[i].id == sorted[i - 1].id)
            records->change.ids[sorted[i - 1].row] = OMENDB_ID_AUTO;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (records->change.ids[i] == OMENDB_ID_AUTO)
            continue;
        records->change.ids[kept] = records->change.ids[i];
        if (records->vectors != NULL && kept != i)
            memcpy(records->vectors + kept * vector_bytes, records->vectors + i * vector_bytes,
                   vector_bytes);
        kept++;
    }
    records->change.count = kept;
}

static int records_settle_equal_ids(struct records *records)
{
    const struct collection *collection = records->change.collection;
    struct memory *memory = &collection->db->memory;
    uint32_t count = records->change.count, ascending = 1;
    const uint64_t *ids = records->change.ids;
    while (ascending < count && ids[ascending - 1] < ids[ascending])
        ascending++;
    if (ascending >= count)
        return OMENDB_OK;
    struct records_id *sorted = memory_array(memory, count, sizeof *sorted);
    if (sorted == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < count; i++)
        sorted[i] = (struct records_id){ids[i], i};
    sort_array(sorted, count, sizeof *sorted, records_compare);
    int code = OMENDB_OK;
    if (records->change.kind == CHANGE_ADD) {
        for (uint32_t i = 1; i < count && code == OMENDB_OK; i++) {
            if (sorted[i].id == sorted[i - 1].id)
                code =
                    error_set(OMENDB_EXISTS, "rows %u and %u of the batch have the same id %llu",
                              sorted[i - 1].row, sorted[i].row, (unsigned long long)sorted[i].id);
        }
    } else {
        records_keep_last(records, sorted, collection->vector_bytes);
    }
    memory_free(memory, sorted, count * sizeof *sorted);
    return code;
}

static int records_take_ids(struct records *records, const uint64_t *ids)
{
    uint32_t count = records->change.count, automatic = 0;
    for (uint32_t i = 0; ids != NULL && i < count; i++)
        automatic += ids[i] == OMENDB_ID_AUTO;
    if (ids == NULL || automatic == count) {
        records->change.automatic = 1;
        return OMENDB_OK;
    }
    if (automatic != 0)
        return error_set(OMENDB_INVALID,
                         "OMENDB_ID_AUTO stands in %u of %u places; give all or none", automatic,
                         count);
    memcpy(records->change.ids, ids, count * sizeof *ids);
    return records_settle_equal_ids(records);
}

static int records_are_too_many(const struct collection *collection, size_t count)
{
    return count > UINT32_MAX ||
           memory_multiply(count, collection->vector_bytes) > RECORDS_MAX_BYTES;
}

/* At least: of each record the id and the vector here, and both once more where they are added to.
 * Of records that are put with ids any number may replace each other before. */
static size_t records_bytes(const struct collection *collection, uint32_t kind, size_t count,
                            const uint64_t *ids)
{
    const size_t copies = kind == CHANGE_PUT && ids != NULL ? 1 : 2;
    return memory_multiply(count, copies * (collection->vector_bytes + sizeof(uint64_t)));
}

OMENDB_INTERNAL int records_can_fit(const struct collection *collection, uint32_t kind,
                                    size_t count, const uint64_t *ids)
{
    const struct memory *memory = &collection->db->memory;
    size_t bytes = records_bytes(collection, kind, count, ids), most = memory_for_writers(memory);
    if (bytes <= most || records_are_too_many(collection, count))
        return OMENDB_OK;
    return error_set(OMENDB_NOMEM,
                     "a batch of %zu records takes %zu bytes or more while it is written; "
                     "memory_limit of %llu leaves %zu for what is written: split it",
                     count, bytes, (unsigned long long)memory->limit, most);
}

OMENDB_INTERNAL int records_fit_now(const struct collection *collection, uint32_t kind,
                                    size_t count, const uint64_t *ids)
{
    const omendb *db = collection->db;
    return db->in_memory || records_are_too_many(collection, count) ||
                   memory_has_room(&db->memory, records_bytes(collection, kind, count, ids))
               ? OMENDB_OK
               : OMENDB_NOMEM;
}

OMENDB_INTERNAL int records_prepare(struct collection *collection, uint32_t kind, size_t count,
                                    const uint64_t *ids, const void *vectors, uint32_t type,
                                    struct records *records)
{
    struct memory *memory = &collection->db->memory;
    memset(records, 0, sizeof *records);
    records->change.kind = kind;
    records->change.collection = collection;
    if (records_are_too_many(collection, count))
        return error_set(OMENDB_TOOBIG,
                         "a batch of %zu records of %zu bytes; at most 1 GiB: split it", count,
                         collection->vector_bytes);
    records->capacity = records->change.count = (uint32_t)count;
    records->change.ids = memory_array(memory, count, sizeof(uint64_t));
    if (records->change.ids == NULL)
        return OMENDB_NOMEM;
    if (kind == CHANGE_DELETE) {
        memcpy(records->change.ids, ids, count * sizeof *ids);
        return records_settle_equal_ids(records);
    }
    records->vectors = memory_array(memory, count, collection->vector_bytes);
    if (records->vectors == NULL)
        return OMENDB_NOMEM;
    records->change.vectors = records->vectors;
    int code = records_convert_all(collection, records, vectors, type);
    return code == OMENDB_OK ? records_take_ids(records, ids) : code;
}

OMENDB_INTERNAL int records_commit(struct records *records, omendb_txn *txn)
{
    if (records->change.count == 0)
        return OMENDB_OK;
    if (txn != NULL)
        return txn_apply(txn, &records->change);
    return commit_changes(records->change.collection->db, &records->change, 1, UINT64_MAX);
}

OMENDB_INTERNAL void records_destroy(struct records *records)
{
    const struct collection *collection = records->change.collection;
    struct memory *memory = &collection->db->memory;
    memory_free(memory, records->change.ids,
                records->change.ids == NULL ? 0 : records->capacity * sizeof(uint64_t));
    memory_free(memory, records->vectors,
                records->vectors == NULL ? 0 : records->capacity * collection->vector_bytes);
}

#undef RECORDS_MAX_BYTES
