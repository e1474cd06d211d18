/* records.c: from the caller's arrays to a change: vectors converted to the stored type and
 * checked, ids copied, keys and metadata made documents, equal ids in one batch settled. Everything
 * that can be refused without knowing the database is refused here, before any lock is taken. */
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

static const omendb_record *records_given_record(const struct records_given *given, size_t index)
{
    return (const omendb_record *)(const void *)(given->records + index * given->stride);
}

static int records_convert_all(const struct collection *collection, struct records *records,
                               const struct records_given *given)
{
    size_t given_bytes = 0;
    int code = OMENDB_OK;
    if (given->records == NULL) {
        code = records_check_type(given->type);
        if (code != OMENDB_OK)
            return code;
        given_bytes = scalar_bytes((omendb_scalar)given->type, collection->schema.dim);
    }
    for (uint32_t i = 0; i < records->change.count && code == OMENDB_OK; i++) {
        const void *vector = (const uint8_t *)given->vectors + i * given_bytes;
        uint32_t type = given->type;
        if (given->records != NULL) {
            vector = records_given_record(given, i)->vector;
            type = records_given_record(given, i)->vector_type;
        }
        code = records_convert(collection, vector, type,
                               records->vectors + i * collection->vector_bytes,
                               records->change.count == 1 ? RECORDS_ALONE : i);
    }
    return code;
}

/* ------------------------------------------------------------------ documents */

/* Room for one more document. */
static int records_reserve_document(struct records *records, struct memory *memory, size_t size)
{
    size_t used = (size_t)records->change.document_bytes, needed = memory_add(used, size);
    if (needed > RECORDS_MAX_BYTES)
        return error_set(OMENDB_TOOBIG,
                         "a batch with more than 1 GiB of keys and metadata: split it");
    if (needed <= records->document_capacity)
        return OMENDB_OK;
    /* One is mostly alone; of many the mean is known soon. */
    size_t capacity = records->document_capacity == 0 ? needed : needed + needed / 2;
    uint8_t *documents =
        memory_resize(memory, records->documents, records->document_capacity, capacity);
    if (documents == NULL)
        return OMENDB_NOMEM;
    records->documents = documents;
    records->document_capacity = capacity;
    return OMENDB_OK;
}

static int records_take_document(struct records *records, struct memory *memory, uint32_t row,
                                 const uint8_t *document)
{
    uint32_t size = document_size(document), key_size;
    if (size == 0)
        return OMENDB_OK;
    int code = records_reserve_document(records, memory, size);
    if (code != OMENDB_OK)
        return code;
    memcpy(records->documents + records->change.document_bytes, document, size);
    records->change.document_bytes += size;
    records->change.keys += document_key(document, &key_size) != NULL;
    records->document_sizes[row] = size;
    return OMENDB_OK;
}

static int records_is_same_value(const struct document_value *a, const struct document_value *b)
{
    return a->type == b->type && a->integer == b->integer && a->real == b->real &&
           a->size == b->size && (a->size == 0 || memcmp(a->text, b->text, a->size) == 0);
}

OMENDB_INTERNAL int records_check_names(const uint8_t *before, const uint8_t *document)
{
    static const char *const names[] = {"_id", "_key"};
    for (size_t i = 0; i < sizeof names / sizeof names[0] && document != NULL; i++) {
        const uint8_t *name = (const uint8_t *)names[i];
        const uint32_t size = (uint32_t)strlen(names[i]), hash = document_hash_name(name, size);
        struct document_value value, old;
        if (document_find(document, name, size, hash, &value) &&
            !(before != NULL && document_find(before, name, size, hash, &old) &&
              records_is_same_value(&value, &old)))
            return error_set(OMENDB_INVALID,
                             "metadata: a field cannot be named \"%s\": in filters that is the %s "
                             "of the record",
                             names[i], names[i] + 1);
    }
    return OMENDB_OK;
}

/* The place in a batch goes before the sentence. */
static int records_name_row(const struct records *records, uint32_t row, int code)
{
    char text[ERROR_TEXT_BYTES];
    if (code == OMENDB_OK || code == OMENDB_NOMEM || records->capacity == 1)
        return code;
    memcpy(text, error_text(), strlen(error_text()) + 1);
    return error_set(code, "row %u: %.450s", row, text);
}

static int records_make_document(struct records *records, struct memory *memory, uint32_t row,
                                 const omendb_record *record)
{
    uint8_t *document;
    size_t size;
    int code = document_create(
        memory, record->key, record->key == NULL ? 0 : strlen(record->key), record->metadata,
        record->metadata == NULL ? 0 : strlen(record->metadata), &document, &size);
    if (code != OMENDB_OK)
        return records_name_row(records, row, code);
    code = records_check_names(NULL, document);
    code = code == OMENDB_OK ? records_take_document(records, memory, row, document)
                             : records_name_row(records, row, code);
    memory_free(memory, document, size);
    return code;
}

static int records_given_documents(const struct records_given *given)
{
    int some = given->documents != NULL;
    for (size_t i = 0; i < given->count && given->records != NULL && !some; i++)
        some = records_given_record(given, i)->key != NULL ||
               records_given_record(given, i)->metadata != NULL;
    return some;
}

static int records_take_documents(struct records *records, struct memory *memory,
                                  const struct records_given *given)
{
    int code = OMENDB_OK;
    if (!records_given_documents(given))
        return OMENDB_OK;
    records->document_sizes =
        memory_zalloc(memory, memory_multiply(given->count, sizeof *records->document_sizes));
    if (records->document_sizes == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < records->change.count && code == OMENDB_OK; i++)
        code = given->records != NULL
                   ? records_make_document(records, memory, i, records_given_record(given, i))
                   : records_take_document(records, memory, i, given->documents[i]);
    if (records->change.document_bytes != 0 || records->change.kind == CHANGE_UPDATE)
        records->change.document_sizes = records->document_sizes;
    records->change.documents = records->documents;
    return code;
}

/* ------------------------------------------------------------------ equal ids and keys */

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

/* Leaves out the rows that are marked, keeping the order of the rest. */
static void records_drop_overtaken(struct records *records, const uint8_t *overtaken)
{
    struct change *change = &records->change;
    const size_t vector_bytes = change->collection->vector_bytes;
    uint8_t *to = records->documents, *from = records->documents;
    uint32_t kept = 0, count = change->count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t key_size, size = records->document_sizes == NULL ? 0 : records->document_sizes[i];
        if (overtaken[i]) {
            change->keys -= size != 0 && document_key(from, &key_size) != NULL;
            from += size;
            continue;
        }
        change->ids[kept] = change->ids[i];
        if (records->vectors != NULL && kept != i)
            memcpy(records->vectors + kept * vector_bytes, records->vectors + i * vector_bytes,
                   vector_bytes);
        if (size != 0 && to != from)
            memmove(to, from, size);
        if (records->document_sizes != NULL)
            records->document_sizes[kept] = size;
        to += size;
        from += size;
        kept++;
    }
    change->count = kept;
    change->document_bytes = records->documents == NULL ? 0 : (size_t)(to - records->documents);
}

/* Leaves the last of equal ids (put, delete). `sorted` is ascending by (id, row). */
static int records_keep_last(struct records *records, const struct records_id *sorted)
{
    struct memory *memory = &records->change.collection->db->memory;
    uint32_t count = records->change.count;
    uint8_t *overtaken = memory_zalloc(memory, count);
    if (overtaken == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 1; i < count; i++)
        overtaken[sorted[i - 1].row] = sorted[i].id == sorted[i - 1].id;
    records_drop_overtaken(records, overtaken);
    memory_free(memory, overtaken, count);
    return OMENDB_OK;
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
        code = records_keep_last(records, sorted);
    }
    memory_free(memory, sorted, count * sizeof *sorted);
    return code;
}

struct records_key {
    const uint8_t *key;
    uint32_t size, row;
};

static int records_compare_keys(const void *left, const void *right)
{
    const struct records_key *a = left, *b = right;
    int order = memcmp(a->key, b->key, a->size < b->size ? a->size : b->size);
    if (order != 0)
        return order;
    if (a->size != b->size)
        return a->size < b->size ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* `sorted` is ascending by (key, row). */
static int records_refuse_equal_keys(const struct records *records,
                                     const struct records_key *sorted, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        const struct records_key *a = &sorted[i - 1], *b = &sorted[i];
        if (a->size == b->size && memcmp(a->key, b->key, a->size) == 0)
            return error_set(records->change.kind == CHANGE_ADD ? OMENDB_EXISTS : OMENDB_CONFLICT,
                             "rows %u and %u of the batch have the same key \"%.*s\"", a->row,
                             b->row, (int)a->size, (const char *)a->key);
    }
    return OMENDB_OK;
}

static int records_check_keys(const struct records *records)
{
    struct memory *memory = &records->change.collection->db->memory;
    const uint32_t keys = records->change.keys;
    const uint8_t *at = records->change.documents;
    uint32_t found = 0;
    if (keys < 2)
        return OMENDB_OK;
    struct records_key *sorted = memory_array(memory, keys, sizeof *sorted);
    if (sorted == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < records->change.count; i++) {
        uint32_t size;
        const uint8_t *key = document_key(change_next_document(&records->change, i, &at), &size);
        if (key != NULL)
            sorted[found++] = (struct records_key){key, size, i};
    }
    sort_array(sorted, found, sizeof *sorted, records_compare_keys);
    int code = records_refuse_equal_keys(records, sorted, found);
    memory_free(memory, sorted, keys * sizeof *sorted);
    return code;
}

static uint64_t records_given_id(const struct records_given *given, size_t index)
{
    if (given->records != NULL)
        return records_given_record(given, index)->id;
    return given->ids == NULL ? OMENDB_ID_AUTO : given->ids[index];
}

OMENDB_INTERNAL void records_copy_ids(const struct records_given *given, uint64_t *ids)
{
    for (size_t i = 0; i < given->count; i++)
        ids[i] = records_given_id(given, i);
}

static int records_take_ids(struct records *records, const struct records_given *given)
{
    uint32_t count = records->change.count, automatic = 0;
    for (uint32_t i = 0; i < count; i++) {
        records->change.ids[i] = records_given_id(given, i);
        automatic += records->change.ids[i] == OMENDB_ID_AUTO;
    }
    if (automatic == count) {
        records->change.automatic = 1;
        return OMENDB_OK;
    }
    if (automatic != 0)
        return error_set(OMENDB_INVALID,
                         "OMENDB_ID_AUTO stands in %u of %u places; give all or none", automatic,
                         count);
    return records_settle_equal_ids(records);
}

static int records_are_too_many(const struct collection *collection, size_t count)
{
    return count > UINT32_MAX ||
           memory_multiply(count, collection->vector_bytes) > RECORDS_MAX_BYTES;
}

/* At least: of each record the id and the vector here, and both once more where they are added to.
 * Of records that are put with ids, or keys, any number may replace each other before. */
static size_t records_bytes(const struct collection *collection, uint32_t kind,
                            const struct records_given *given)
{
    const int replace = kind == CHANGE_PUT && (given->ids != NULL || given->records != NULL);
    return memory_multiply(given->count,
                           (replace ? 1 : 2) * (collection->vector_bytes + sizeof(uint64_t)));
}

OMENDB_INTERNAL int records_can_fit(const struct collection *collection, uint32_t kind,
                                    const struct records_given *given)
{
    const struct memory *memory = &collection->db->memory;
    size_t bytes = records_bytes(collection, kind, given), most = memory_for_writers(memory);
    if (bytes <= most || records_are_too_many(collection, given->count))
        return OMENDB_OK;
    return error_set(OMENDB_NOMEM,
                     "a batch of %zu records takes %zu bytes or more while it is written; "
                     "memory_limit of %llu leaves %zu for what is written: split it",
                     given->count, bytes, (unsigned long long)memory->limit, most);
}

OMENDB_INTERNAL int records_fit_now(const struct collection *collection, uint32_t kind,
                                    const struct records_given *given)
{
    const omendb *db = collection->db;
    return db->in_memory || records_are_too_many(collection, given->count) ||
                   memory_has_room(&db->memory, records_bytes(collection, kind, given))
               ? OMENDB_OK
               : OMENDB_NOMEM;
}

OMENDB_INTERNAL int records_prepare(struct collection *collection, uint32_t kind,
                                    const struct records_given *given, struct records *records)
{
    struct memory *memory = &collection->db->memory;
    const size_t count = given->count;
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
        memcpy(records->change.ids, given->ids, count * sizeof *given->ids);
        return records_settle_equal_ids(records);
    }
    if (kind == CHANGE_UPDATE) {
        memcpy(records->change.ids, given->ids, count * sizeof *given->ids);
        int taken = records_take_documents(records, memory, given);
        records->change.keys = 0;
        return taken;
    }
    records->vectors = memory_array(memory, count, collection->vector_bytes);
    if (records->vectors == NULL)
        return OMENDB_NOMEM;
    records->change.vectors = records->vectors;
    int code = records_convert_all(collection, records, given);
    if (code == OMENDB_OK)
        code = records_take_documents(records, memory, given);
    if (code == OMENDB_OK)
        code = records_take_ids(records, given);
    if (code == OMENDB_OK)
        code = records_check_keys(records);
    return code == OMENDB_OK ? fields_check_change(&records->change) : code;
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
    memory_free(
        memory, records->document_sizes,
        records->document_sizes == NULL ? 0 : records->capacity * sizeof *records->document_sizes);
    memory_free(memory, records->documents, records->document_capacity);
}

#undef RECORDS_MAX_BYTES
