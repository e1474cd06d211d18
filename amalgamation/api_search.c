/* api_search.c: the public calls that search, one query or many, and measure recall. */
#include "api.h"
#include "records.h"

#include <math.h>

/* At the version and the commit of the request, which it completes. */
static int api_search_at(const omendb_query *query, const omendb_txn *txn, struct scratch *scratch,
                         struct api_asked *asked, uint64_t *ids, float *distances, size_t *count,
                         omendb_explain *explain)
{
    int code = api_resolve(query, txn, scratch, asked);
    *explain = (omendb_explain)OMENDB_EXPLAIN_INIT;
    if (code == OMENDB_OK)
        code = groups_run(&asked->request, scratch, ids, distances, count, explain);
    api_asked_end(asked);
    return code;
}

/* Once; after OMENDB_NOMEM it may be tried again. */
static int api_try_search(omendb_collection *collection, omendb_txn *txn, const omendb_query *query,
                          struct api_asked *asked, uint64_t *ids, float *distances, size_t *count,
                          omendb_explain *explain)
{
    omendb *db = collection->db;
    struct scratch *scratch = scratch_take(db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    struct version *version = api_version(collection, txn, &asked->request.commit);
    asked->request.version = version;
    int code = api_search_at(query, txn, scratch, asked, ids, distances, count, explain);
    version_release(version);
    scratch_give(db, scratch);
    return code;
}

OMENDB_API int omendb_search(omendb_collection *collection, omendb_txn *txn,
                             const omendb_query *query, uint64_t *ids, float *distances,
                             size_t *count)
{
    struct api_asked asked;
    struct work_wait wait = {0};
    omendb_explain explain;
    if (count == NULL || ids == NULL)
        return api_null(count == NULL ? "count" : "ids");
    *count = 0;
    int code = api_check_query(collection, txn, query, 1);
    if (code == OMENDB_OK)
        code = quota_take_queries(collection->collection, 1);
    if (code != OMENDB_OK)
        return code;
    omendb *db = collection->db;
    const omendb_vfs *vfs = db->storage.vfs;
    uint64_t begin = query->explain == NULL ? 0 : vfs->now_us(vfs->context);
    api_ask(collection, txn, query, &asked);
    do {
        code = api_try_search(collection, txn, query, &asked, ids, distances, count, &explain);
    } while (api_relieve_search(db, &asked.request, &wait, &code));
    if (query->explain != NULL && code == OMENDB_OK) {
        explain.time_us = vfs->now_us(vfs->context) - begin;
        *query->explain = explain;
    }
    return code;
}

/* Threads take the queries in runs, so that they do not meet at each. */
#define API_BATCH_RUN 16

struct api_batch {
    const struct search_request *request;
    const uint8_t *vectors;
    size_t vector_bytes;
    uint32_t vector_type;
    size_t count;
    uint64_t *ids;
    float *distances;
    size_t *counts;
};

static int api_search_row(const struct api_batch *batch, uint64_t index, struct scratch *scratch)
{
    struct search_request request = *batch->request;
    struct collection *collection = request.collection;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint64_t *ids = batch->ids + index * request.k;
    float *distances = batch->distances == NULL ? NULL : batch->distances + index * request.k;
    size_t count = 0;
    int code = search_check_deadline(&request);
    if (code == OMENDB_OK)
        code = scratch_reserve(scratch, 0, 0, 0, collection->vector_bytes);
    if (code == OMENDB_OK)
        code = records_convert(collection, batch->vectors + index * batch->vector_bytes,
                               batch->vector_type, scratch->vector, index);
    request.vector = scratch->vector;
    if (code == OMENDB_OK)
        code = groups_run(&request, scratch, ids, distances, &count, &explain);
    for (size_t i = count; i < request.k; i++) {
        ids[i] = OMENDB_ID_AUTO;
        if (distances != NULL)
            distances[i] = INFINITY;
    }
    if (batch->counts != NULL)
        batch->counts[index] = count;
    return code;
}

static int api_search_run(void *context, uint64_t index)
{
    const struct api_batch *batch = context;
    omendb *db = batch->request->collection->db;
    uint64_t first = index * API_BATCH_RUN;
    uint64_t left = batch->count - first, run = left < API_BATCH_RUN ? left : API_BATCH_RUN;
    struct scratch *scratch = scratch_take(db);
    int code = scratch == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (uint64_t i = 0; i < run && code == OMENDB_OK; i++)
        code = api_search_row(batch, first + i, scratch);
    scratch_give(db, scratch);
    return code;
}

OMENDB_API int omendb_search_batch(omendb_collection *collection, omendb_txn *txn,
                                   const omendb_query *query, const void *vectors, size_t count,
                                   uint64_t *ids, float *distances, size_t *counts)
{
    struct api_asked asked;
    int code = api_check_query(collection, txn, query, 0);
    if (code != OMENDB_OK || count == 0)
        return code;
    if (vectors == NULL || ids == NULL)
        return api_null(vectors == NULL ? "vectors" : "ids");
    code = records_check_type(query->vector_type);
    if (code != OMENDB_OK)
        return code;
    if (memory_multiply(memory_multiply(count, query->k), sizeof *ids) > PTRDIFF_MAX)
        return error_set(OMENDB_TOOBIG, "%zu queries of %zu hits are more than ids can hold", count,
                         query->k);
    code = quota_take_queries(collection->collection, count);
    if (code != OMENDB_OK)
        return code;
    api_ask(collection, txn, query, &asked);
    asked.request.others = (count < API_BATCH_RUN ? count : API_BATCH_RUN) - 1;
    struct work_wait wait = {0};
    struct api_batch batch = {
        &asked.request,
        vectors,
        scalar_bytes((omendb_scalar)query->vector_type, collection->collection->schema.dim),
        query->vector_type,
        count,
        ids,
        distances,
        counts};
    do {
        struct version *version = api_version(collection, txn, &asked.request.commit);
        asked.request.version = version;
        asked.request.batch = atomic_fetch_add(&collection->db->batches, 1) + 1;
        code =
            work_parallel(collection->db, (count - 1) / API_BATCH_RUN + 1, api_search_run, &batch);
        version_release(version);
    } while (api_relieve_search(collection->db, &asked.request, &wait, &code));
    return code;
}

/* ------------------------------------------------------------------ many queries */

struct api_many {
    omendb_txn *txn;
    const uint8_t *queries; /* at each `stride` bytes */
    size_t stride, places;
    struct api_asked *asked; /* one a query */
    uint64_t *ids;
    float *distances;
    size_t *counts;
};

static const omendb_query *api_query_at(const void *queries, size_t stride, uint64_t index)
{
    return (const omendb_query *)(const void *)((const uint8_t *)queries + index * stride);
}

/* The sentence with the number of the query. */
static int api_name_query(uint64_t index, int code)
{
    return code == OMENDB_OK || code == OMENDB_TIMEOUT || code == OMENDB_NOMEM
               ? code
               : error_set(code, "query %llu: %s", (unsigned long long)index, error_text());
}

static int api_search_one_of(const struct api_many *many, uint64_t index, struct scratch *scratch)
{
    const omendb_query *query = api_query_at(many->queries, many->stride, index);
    struct api_asked *asked = &many->asked[index];
    const omendb_vfs *vfs = asked->request.collection->db->storage.vfs;
    uint64_t *ids = many->ids + index * many->places;
    float *distances = many->distances == NULL ? NULL : many->distances + index * many->places;
    const uint64_t begin = query->explain == NULL ? 0 : vfs->now_us(vfs->context);
    omendb_explain explain;
    size_t count = 0;
    int code = search_check_deadline(&asked->request);
    if (code == OMENDB_OK)
        code = api_search_at(query, many->txn, scratch, asked, ids, distances, &count, &explain);
    if (code != OMENDB_OK)
        return code;
    for (size_t i = count; i < many->places; i++) {
        ids[i] = OMENDB_ID_AUTO;
        if (distances != NULL)
            distances[i] = INFINITY;
    }
    if (many->counts != NULL)
        many->counts[index] = count;
    if (query->explain != NULL) {
        explain.time_us = vfs->now_us(vfs->context) - begin;
        *query->explain = explain;
    }
    return OMENDB_OK;
}

static int api_search_each(void *context, uint64_t index)
{
    const struct api_many *many = context;
    omendb *db = many->asked[index].request.collection->db;
    struct scratch *scratch = scratch_take(db);
    int code = scratch == NULL ? OMENDB_NOMEM : api_search_one_of(many, index, scratch);
    scratch_give(db, scratch);
    return api_name_query(index, code);
}

/* The queries in the engine's terms; *places: the largest k. */
static int api_ask_many(omendb_collection *collection, omendb_txn *txn, const void *queries,
                        size_t stride, size_t count, struct api_asked *asked)
{
    for (size_t i = 0; i < count; i++) {
        const omendb_query *query = api_query_at(queries, stride, i);
        if (query->struct_size != stride)
            return error_set(OMENDB_MISUSE,
                             "query %zu: struct_size is %zu, and %zu of query 0: all must be equal",
                             i, query->struct_size, stride);
        int code = api_name_query(i, api_check_query(collection, txn, query, 1));
        if (code != OMENDB_OK)
            return code;
        api_ask(collection, txn, query, &asked[i]);
    }
    return OMENDB_OK;
}

static int api_run_many(omendb_collection *collection, size_t count, struct api_many *many)
{
    struct work_wait wait = {0};
    uint64_t commit, latest = 0;
    int code;
    for (size_t i = 0; i < count; i++) {
        const size_t k = many->asked[i].request.k;
        const uint64_t deadline = many->asked[i].request.deadline_us;
        many->places = k > many->places ? k : many->places;
        latest = i == 0 || deadline > latest ? deadline : latest;
    }
    if (memory_multiply(memory_multiply(count, many->places), sizeof *many->ids) > PTRDIFF_MAX)
        return error_set(OMENDB_TOOBIG, "%zu queries of %zu hits are more than ids can hold", count,
                         many->places);
    code = quota_take_queries(collection->collection, count);
    if (code != OMENDB_OK)
        return code;
    const struct search_request last = {.collection = collection->collection,
                                        .deadline_us = latest};
    do {
        struct version *version = api_version(collection, many->txn, &commit);
        for (size_t i = 0; i < count; i++) {
            many->asked[i].request.version = version;
            many->asked[i].request.commit = commit;
        }
        code = work_parallel(collection->db, count, api_search_each, many);
        version_release(version);
    } while (api_relieve_search(collection->db, &last, &wait, &code));
    return code;
}

OMENDB_API int omendb_search_many(omendb_collection *collection, omendb_txn *txn,
                                  const omendb_query *queries, size_t count, uint64_t *ids,
                                  float *distances, size_t *counts)
{
    int code = api_reading(collection, txn);
    if (code != OMENDB_OK || count == 0)
        return code;
    if (queries == NULL || ids == NULL)
        return api_null(queries == NULL ? "queries" : "ids");
    code = api_struct_read(queries, sizeof *queries, "query 0");
    if (code != OMENDB_OK)
        return code;
    struct memory *memory = &collection->db->memory;
    struct api_many many = {.txn = txn,
                            .queries = (const uint8_t *)queries,
                            .stride = queries->struct_size,
                            .ids = ids,
                            .distances = distances,
                            .counts = counts};
    struct work_wait wait = {0};
    do {
        memory_begin_reading();
        many.asked = memory_array(memory, count, sizeof *many.asked);
        memory_end_reading();
    } while (many.asked == NULL && work_relieve(collection->db, &wait));
    if (many.asked == NULL)
        return OMENDB_NOMEM;
    code = api_ask_many(collection, txn, queries, many.stride, count, many.asked);
    if (code == OMENDB_OK)
        code = api_run_many(collection, count, &many);
    memory_free(memory, many.asked, count * sizeof *many.asked);
    return code;
}

OMENDB_API int omendb_calibrate(omendb_collection *collection, const void *queries, size_t count,
                                int query_type,
                                int (*progress)(void *context, uint64_t done, uint64_t total),
                                void *context)
{
    int code = api_writing(collection, NULL);
    if (code != OMENDB_OK)
        return code;
    if (queries == NULL)
        return api_null("queries");
    if (count < OMENDB_CALIBRATE_MIN || count > OMENDB_CALIBRATE_MAX)
        return error_set(OMENDB_INVALID, "%zu queries; a calibration takes %d to %d", count,
                         OMENDB_CALIBRATE_MIN, OMENDB_CALIBRATE_MAX);
    struct collection *inside = collection->collection;
    uint8_t *converted = NULL;
    size_t bytes = memory_multiply(count, inside->vector_bytes);
    code = records_check_type((uint32_t)query_type);
    if (code == OMENDB_OK) {
        converted = memory_alloc(&collection->db->memory, bytes);
        code = converted == NULL ? OMENDB_NOMEM : OMENDB_OK;
    }
    size_t given = scalar_bytes((omendb_scalar)query_type, inside->schema.dim);
    for (size_t i = 0; i < count && code == OMENDB_OK; i++)
        code = records_convert(inside, (const uint8_t *)queries + i * given, (uint32_t)query_type,
                               converted + i * inside->vector_bytes, i);
    if (code == OMENDB_OK)
        code = calibrate_collection(inside, converted, (uint32_t)count, progress, context);
    if (converted != NULL)
        memory_free(&collection->db->memory, converted, bytes);
    return code;
}

#undef API_BATCH_RUN
