/* api_records.c: the public calls that write, delete and read records. */
#include "api.h"
#include "lifecycle.h"
#include "prefetch.h"
#include "records.h"
#include "rows.h"

#include <string.h>

#define API_AHEAD 4 /* vectors of a batch that are asked for before they are copied */

/* ------------------------------------------------------------------ records */

static int api_try_write(omendb_collection *collection, omendb_txn *txn, uint32_t kind,
                         const struct records_given *given, uint64_t *new_ids)
{
    struct records records;
    int code = OMENDB_OK;
    if (txn == NULL)
        code = records_fit_now(collection->collection, kind, given);
    if (code != OMENDB_OK)
        return code;
    code = records_prepare(collection->collection, kind, given, &records);
    if (code == OMENDB_OK)
        code = records_commit(&records, txn);
    if (code == OMENDB_OK && new_ids != NULL) {
        if (records.change.automatic)
            memcpy(new_ids, records.change.ids, given->count * sizeof *new_ids);
        else if (given->records != NULL)
            records_copy_ids(given, new_ids);
        else if (new_ids != given->ids)
            memmove(new_ids, given->ids, given->count * sizeof *new_ids);
    }
    records_destroy(&records);
    return code;
}

static int api_write(omendb_collection *collection, omendb_txn *txn, uint32_t kind,
                     const struct records_given *given, uint64_t *new_ids)
{
    struct work_wait wait = {0};
    int code = OMENDB_OK;
    if (txn == NULL)
        code = records_can_fit(collection->collection, kind, given);
    if (code != OMENDB_OK)
        return code;
    code = api_try_write(collection, txn, kind, given, new_ids);
    while (code == OMENDB_NOMEM && work_relieve(collection->db, &wait))
        code = api_try_write(collection, txn, kind, given, new_ids);
    if (code == OMENDB_OK && txn == NULL)
        work_reclaim(collection->db);
    return code;
}

static int api_write_batch(omendb_collection *collection, omendb_txn *txn, uint32_t kind,
                           size_t count, const uint64_t *ids, const void *vectors, uint32_t type,
                           uint64_t *new_ids)
{
    const struct records_given given = {
        .count = count, .ids = ids, .vectors = vectors, .type = type};
    int code = api_writing(collection, txn);
    if (code != OMENDB_OK || count == 0)
        return code;
    if (vectors == NULL)
        return api_null("vectors");
    code = records_check_type(type);
    return code == OMENDB_OK ? api_write(collection, txn, kind, &given, new_ids) : code;
}

static int api_check_record(const omendb_record *record, size_t size)
{
    int code = api_struct_read(record, sizeof *record, "record");
    if (code != OMENDB_OK)
        return code;
    if (record->struct_size != size || size % sizeof(uint64_t) != 0)
        return error_set(OMENDB_MISUSE,
                         "record.struct_size is %zu; of records in an array all have the same, a "
                         "multiple of 8",
                         record->struct_size);
    if (record->reserved != 0)
        return error_set(OMENDB_INVALID, "record.reserved is %u; it must be 0", record->reserved);
    if (record->vector == NULL)
        return api_null("record.vector");
    return records_check_type(record->vector_type);
}

static int api_write_records(omendb_collection *collection, omendb_txn *txn, uint32_t kind,
                             size_t count, const omendb_record *records, uint64_t *new_ids)
{
    int code = api_writing(collection, txn);
    if (code != OMENDB_OK || count == 0)
        return code;
    if (records == NULL)
        return api_null(count == 1 ? "record" : "records");
    const size_t stride = records->struct_size;
    const struct records_given given = {
        .count = count, .records = (const uint8_t *)records, .stride = stride};
    for (size_t i = 0; i < count && code == OMENDB_OK; i++)
        code = api_check_record((const void *)(given.records + i * stride), stride);
    return code == OMENDB_OK ? api_write(collection, txn, kind, &given, new_ids) : code;
}

OMENDB_API int omendb_add(omendb_collection *collection, omendb_txn *txn,
                          const omendb_record *record, uint64_t *id)
{
    return api_write_records(collection, txn, CHANGE_ADD, 1, record, id);
}

OMENDB_API int omendb_add_records(omendb_collection *collection, omendb_txn *txn, size_t count,
                                  const omendb_record *records, uint64_t *new_ids)
{
    return api_write_records(collection, txn, CHANGE_ADD, count, records, new_ids);
}

OMENDB_API int omendb_add_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, const void *vectors, int vector_type,
                                uint64_t *new_ids)
{
    return api_write_batch(collection, txn, CHANGE_ADD, count, ids, vectors, (uint32_t)vector_type,
                           new_ids);
}

OMENDB_API int omendb_put(omendb_collection *collection, omendb_txn *txn,
                          const omendb_record *record, uint64_t *id)
{
    return api_write_records(collection, txn, CHANGE_PUT, 1, record, id);
}

OMENDB_API int omendb_put_records(omendb_collection *collection, omendb_txn *txn, size_t count,
                                  const omendb_record *records, uint64_t *new_ids)
{
    return api_write_records(collection, txn, CHANGE_PUT, count, records, new_ids);
}

OMENDB_API int omendb_put_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, const void *vectors, int vector_type,
                                uint64_t *new_ids)
{
    return api_write_batch(collection, txn, CHANGE_PUT, count, ids, vectors, (uint32_t)vector_type,
                           new_ids);
}

static int api_try_delete(omendb_collection *collection, omendb_txn *txn, size_t count,
                          const uint64_t *ids, int skip_missing, size_t *deleted)
{
    const struct records_given given = {.count = count, .ids = ids};
    struct records records;
    int code = records_prepare(collection->collection, CHANGE_DELETE, &given, &records);
    records.change.skip_missing = skip_missing;
    if (code == OMENDB_OK)
        code = records_commit(&records, txn);
    if (code == OMENDB_OK && deleted != NULL)
        *deleted = records.change.affected;
    records_destroy(&records);
    return code;
}

static int api_delete(omendb_collection *collection, omendb_txn *txn, size_t count,
                      const uint64_t *ids, int skip_missing, size_t *deleted)
{
    int code = api_writing(collection, txn);
    if (deleted != NULL)
        *deleted = 0;
    if (code != OMENDB_OK || count == 0)
        return code;
    if (ids == NULL)
        return api_null("ids");
    struct work_wait wait = {0};
    code = api_try_delete(collection, txn, count, ids, skip_missing, deleted);
    while (code == OMENDB_NOMEM && work_relieve(collection->db, &wait))
        code = api_try_delete(collection, txn, count, ids, skip_missing, deleted);
    if (code == OMENDB_OK && txn == NULL)
        work_reclaim(collection->db);
    return code;
}

OMENDB_API int omendb_delete(omendb_collection *collection, omendb_txn *txn, uint64_t id)
{
    if (id == OMENDB_ID_AUTO)
        return error_set(OMENDB_NOTFOUND, "OMENDB_ID_AUTO is the id of no record");
    return api_delete(collection, txn, 1, &id, 0, NULL);
}

OMENDB_API int omendb_delete_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                   const uint64_t *ids, size_t *deleted)
{
    return api_delete(collection, txn, count, ids, 1, deleted);
}

/* ------------------------------------------------------------------ reading */

OMENDB_INTERNAL struct version *api_version(omendb_collection *collection, const omendb_txn *txn,
                                            uint64_t *commit)
{
    if (txn == NULL)
        return version_acquire_newest(collection->collection, commit);
    *commit = txn->snapshot;
    return version_acquire(collection->collection);
}

static int api_is_located(const struct location *location)
{
    return location->memtable != NULL || location->segment != NULL;
}

OMENDB_INTERNAL int api_find_record(struct collection *collection, const struct version *version,
                                    uint64_t commit, const omendb_txn *txn, uint64_t id,
                                    const uint8_t **vector, const uint8_t **document)
{
    const struct txn_write *own = txn_find(txn, collection, id);
    struct location location = {NULL, NULL, NULL, 0};
    int code = own != NULL ? OMENDB_OK : version_locate(version, id, commit, &location);
    if (code != OMENDB_OK)
        return code;
    if (!api_is_located(&location) && (own == NULL || own->vector == NULL))
        return error_set_missing(collection->name, id);
    if (vector != NULL && own != NULL)
        *vector = own->vector;
    else if (vector != NULL)
        code = location_vector(&location, vector);
    if (document != NULL && own != NULL)
        *document = own->document;
    else if (document != NULL && code == OMENDB_OK)
        code = location_document(&location, commit, document);
    return code;
}

/* Whether the record is there; its vector is not read. */
static int api_find(struct collection *collection, const struct version *version, uint64_t commit,
                    const omendb_txn *txn, uint64_t id)
{
    const struct txn_write *own = txn_find(txn, collection, id);
    struct location location = {NULL, NULL, NULL, 0};
    int code = own != NULL ? OMENDB_OK : version_locate(version, id, commit, &location);
    if (code != OMENDB_OK)
        return code;
    return api_is_located(&location) || (own != NULL && own->vector != NULL)
               ? OMENDB_OK
               : error_set_missing(collection->name, id);
}

OMENDB_API int omendb_get(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                          int vector_type, void *vector)
{
    const uint8_t *stored;
    uint64_t commit;
    int code = api_reading(collection, txn);
    if (code == OMENDB_OK)
        code = records_check_type((uint32_t)vector_type);
    if (code != OMENDB_OK)
        return code;
    struct version *version = api_version(collection, txn, &commit);
    code = vector == NULL
               ? api_find(collection->collection, version, commit, txn, id)
               : api_find_record(collection->collection, version, commit, txn, id, &stored, NULL);
    if (code == OMENDB_OK && vector != NULL) {
        code = scalar_export(&collection->collection->format, stored, (omendb_scalar)vector_type,
                             vector);
        if (code == OMENDB_INVALID)
            records_refuse_type(collection->collection, vector_type);
    }
    version_release(version);
    return code;
}

/* What a batch reads at, and where it puts what it finds. */
struct api_get {
    struct collection *collection;
    const struct version *version;
    uint64_t commit;
    const omendb_txn *txn;
    const uint64_t *ids;
    int vector_type;
    uint8_t *vectors; /* NULL: none are copied */
    size_t vector_bytes;
    uint8_t *found; /* NULL: all must be there */
};

/* `own` counts as the vector where the transaction changed the record. */
static int api_get_put(const struct api_get *batch, size_t index, const struct txn_write *own,
                       const struct location *location)
{
    const uint8_t *stored = own != NULL ? own->vector : NULL;
    int code = OMENDB_OK, is = own != NULL ? stored != NULL : api_is_located(location);
    if (batch->found != NULL)
        batch->found[index] = (uint8_t)is;
    if (!is)
        return batch->found != NULL ? OMENDB_OK
                                    : error_set_missing(batch->collection->name, batch->ids[index]);
    if (batch->vectors == NULL)
        return OMENDB_OK;
    if (own == NULL)
        code = location_vector(location, &stored);
    if (code != OMENDB_OK)
        return code;
    code = scalar_export(&batch->collection->format, stored, (omendb_scalar)batch->vector_type,
                         batch->vectors + index * batch->vector_bytes);
    return code == OMENDB_INVALID ? records_refuse_type(batch->collection, batch->vector_type)
                                  : code;
}

static void api_get_ask(const struct api_get *batch, const struct location *location)
{
    const struct segment *segment = location->segment;
    if (batch->vectors != NULL && segment != NULL)
        prefetch_bytes(rows_at(&segment->full.vectors, location->row),
                       segment->full.vectors.stride);
}

/* At most VERSION_BATCH of them, from `first` on. */
static int api_get_some(const struct api_get *batch, size_t first, uint32_t count)
{
    struct location locations[VERSION_BATCH];
    int code =
        version_locate_batch(batch->version, batch->ids + first, count, batch->commit, locations);
    for (uint32_t i = 0; i < API_AHEAD && i < count && code == OMENDB_OK; i++)
        api_get_ask(batch, &locations[i]);
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++) {
        if (i + API_AHEAD < count)
            api_get_ask(batch, &locations[i + API_AHEAD]);
        code = api_get_put(batch, first + i,
                           txn_find(batch->txn, batch->collection, batch->ids[first + i]),
                           &locations[i]);
    }
    return code;
}

OMENDB_API int omendb_get_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, int vector_type, void *vectors, uint8_t *found)
{
    struct api_get batch = {
        .txn = txn, .ids = ids, .vector_type = vector_type, .vectors = vectors, .found = found};
    int code = api_reading(collection, txn);
    if (code == OMENDB_OK)
        code = records_check_type((uint32_t)vector_type);
    if (code != OMENDB_OK || count == 0)
        return code;
    if (ids == NULL)
        return api_null("ids");
    struct version *version = api_version(collection, txn, &batch.commit);
    batch.collection = collection->collection;
    batch.version = version;
    batch.vector_bytes =
        scalar_bytes((omendb_scalar)vector_type, collection->collection->schema.dim);
    for (size_t first = 0; first < count && code == OMENDB_OK; first += VERSION_BATCH) {
        size_t left = count - first;
        code = api_get_some(&batch, first, left < VERSION_BATCH ? (uint32_t)left : VERSION_BATCH);
    }
    version_release(version);
    return code;
}

OMENDB_API int omendb_count(omendb_collection *collection, omendb_txn *txn, uint64_t *count)
{
    uint64_t commit;
    int code = api_reading(collection, txn);
    if (code != OMENDB_OK)
        return code;
    if (count == NULL)
        return api_null("count");
    code = quota_take_queries(collection->collection, 1);
    if (code != OMENDB_OK)
        return code;
    struct version *version = api_version(collection, txn, &commit);
    code = version_count(version, commit, count);
    for (size_t i = 0; txn != NULL && i < txn->write_count && code == OMENDB_OK; i++) {
        const struct txn_write *write = &txn->writes[i];
        if (write->collection != collection->collection)
            continue;
        *count += write->vector != NULL && write->added;
        *count -= write->vector == NULL && !write->added;
    }
    version_release(version);
    return code;
}

OMENDB_API int omendb_scan_matching(omendb_collection *collection, omendb_txn *txn,
                                    const omendb_filter *filter, uint64_t from, uint64_t to,
                                    omendb_rows **rows)
{
    if (rows == NULL)
        return api_null("rows");
    *rows = NULL;
    int code = api_reading(collection, txn);
    if (code == OMENDB_OK)
        code = api_filter(collection->db, filter);
    if (code == OMENDB_OK)
        code = quota_take_queries(collection->collection, 1);
    if (code != OMENDB_OK)
        return code;
    struct work_wait wait = {0};
    code = rows_open(collection->collection, txn, filter, from, to, rows);
    while (code == OMENDB_NOMEM && work_relieve(collection->db, &wait))
        code = rows_open(collection->collection, txn, filter, from, to, rows);
    return code;
}

OMENDB_API int omendb_scan(omendb_collection *collection, omendb_txn *txn, uint64_t from,
                           uint64_t to, omendb_rows **rows)
{
    return omendb_scan_matching(collection, txn, NULL, from, to, rows);
}

OMENDB_API int omendb_rows_next(omendb_rows *rows, uint64_t *id, int vector_type, void *vector)
{
    if (!rows_is_valid(rows))
        return error_set(OMENDB_MISUSE, "rows is not an open cursor");
    int code = api_database(rows_database(rows));
    if (code != OMENDB_OK)
        return code;
    code = rows_next(rows, id, vector_type, vector);
    return code == OMENDB_INVALID ? records_refuse_type(rows_collection(rows), vector_type) : code;
}

OMENDB_API void omendb_rows_close(omendb_rows *rows)
{
    if (!rows_is_valid(rows))
        return;
    omendb *db = rows_database(rows);
    if (db->process != platform_process())
        return;
    rows_free(rows);
    atomic_fetch_sub(&db->open_cursors, 1);
    database_child_done(db);
}

#undef API_AHEAD
