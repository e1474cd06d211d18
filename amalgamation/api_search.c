/* api_search.c: the public calls that search, one query or many, and measure recall. */
#include "api.h"
#include "records.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Candidates of a search that stops by its stretch and names no ef. */
#define API_STRETCH_EF 2000

static int api_check_query(omendb_collection *collection, const omendb_txn *txn,
                           const omendb_query *query, int one)
{
    int code = api_reading(collection, txn);
    if (code != OMENDB_OK)
        return code;
    if (query == NULL)
        return api_null("query");
    code = api_struct_read(query, sizeof *query, "query");
    if (code != OMENDB_OK)
        return code;
    if (query->vector == NULL && query->id == OMENDB_ID_AUTO && query->key == NULL && one)
        return error_set(OMENDB_INVALID,
                         "query.vector is NULL, and neither query.id nor query.key is set");
    if (query->k == 0)
        return error_set(OMENDB_INVALID, "query.k is 0; at least 1 hit must be asked for");
    if (query->ef > 100000)
        return error_set(OMENDB_INVALID, "query.ef is %u; at most 100,000: use exact", query->ef);
    if (query->stretch != 0.0f && !(query->stretch >= 1.0f && query->stretch <= FLT_MAX))
        return error_set(OMENDB_INVALID, "query.stretch is %g; it must be 0, or 1 and more",
                         (double)query->stretch);
    if (query->recall != 0.0f && !(query->recall > 0.0f && query->recall <= 1.0f))
        return error_set(OMENDB_INVALID,
                         "query.recall is %g; it must be above 0 and at most 1, or 0 to go by ef",
                         (double)query->recall);
    if (query->recall != 0.0f && (query->ef != 0 || query->stretch != 0.0f))
        return error_set(OMENDB_INVALID,
                         "query.recall is %g beside an ef of %u and a stretch of %g; set one",
                         (double)query->recall, query->ef, (double)query->stretch);
    if (query->reserved != 0)
        return error_set(OMENDB_INVALID, "query.reserved is %u; it must be 0", query->reserved);
    if (query->exact > 1 || query->use_radius > 1)
        return error_set(OMENDB_INVALID, "query.exact is %u and use_radius %u; each is 0 or 1",
                         query->exact, query->use_radius);
    if (isnan(query->radius))
        return error_set(OMENDB_INVALID, "query.radius is NaN");
    if (!query->use_radius && query->radius != 0.0f)
        return error_set(OMENDB_INVALID, "query.radius is %g, but use_radius is 0",
                         (double)query->radius);
    if (query->match == NULL && query->match_context != NULL)
        return error_set(OMENDB_INVALID, "query.match_context is set, but match is NULL");
    code = api_filter(collection->db, query->filter);
    if (code != OMENDB_OK)
        return code;
    if (query->explain != NULL && one)
        return api_struct(query->explain->struct_size, sizeof *query->explain, "explain");
    return OMENDB_OK;
}

/* predicate: filled, where there is one, and borrowed by the request. */
static void api_request(omendb_collection *collection, omendb_txn *txn, const omendb_query *query,
                        struct search_predicate *predicate, struct search_request *request)
{
    *predicate = (struct search_predicate){
        .match = query->match, .context = query->match_context, .filter = query->filter};
    *request = (struct search_request){.collection = collection->collection,
                                       .excluded_id = OMENDB_ID_AUTO};
    request->txn = txn != NULL && txn->write_count != 0 ? txn : NULL;
    request->predicate = query->match != NULL || query->filter != NULL ? predicate : NULL;
    request->k = query->k;
    request->stretch = query->stretch;
    request->ef = query->ef != 0          ? query->ef
                  : query->stretch > 0.0f ? API_STRETCH_EF
                                          : collection->collection->schema.ef;
    request->exact = query->exact != 0;
    request->use_radius = query->use_radius != 0;
    request->radius = query->radius;
    request->recall = query->recall;
    if (query->timeout_us != 0) {
        const omendb_vfs *vfs = collection->db->storage.vfs;
        uint64_t now = vfs->now_us(vfs->context);
        request->deadline_us =
            query->timeout_us > UINT64_MAX - now ? UINT64_MAX : now + query->timeout_us;
    }
}

/* Once; after OMENDB_NOMEM it may be tried again. Completes `request`. */
static int api_try_search(omendb_collection *collection, omendb_txn *txn, const omendb_query *query,
                          struct search_request *request, uint64_t *ids, float *distances,
                          size_t *count, omendb_explain *explain)
{
    omendb *db = collection->db;
    struct scratch *scratch = scratch_take(db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    struct version *version = api_version(collection, txn, &request->commit);
    int code;
    request->version = version;
    *explain = (omendb_explain)OMENDB_EXPLAIN_INIT;
    if (query->vector == NULL) {
        request->excluded_id = query->id;
        code = query->id != OMENDB_ID_AUTO
                   ? OMENDB_OK
                   : api_find_key(collection->collection, version, request->commit, txn, query->key,
                                  &request->excluded_id);
        if (code == OMENDB_OK)
            code = api_find_record(collection->collection, version, request->commit, txn,
                                   request->excluded_id, &request->vector, NULL);
    } else {
        code = scratch_reserve(scratch, 0, 0, 0, collection->collection->vector_bytes);
        if (code == OMENDB_OK)
            code = records_convert(collection->collection, query->vector, query->vector_type,
                                   scratch->vector, RECORDS_ALONE);
        request->vector = scratch->vector;
    }
    if (code == OMENDB_OK)
        code = search_run(request, scratch, ids, distances, count, explain);
    version_release(version);
    scratch_give(db, scratch);
    return code;
}

/* As work_relieve, but not beyond the deadline of the search: *code says so. */
static int api_relieve_search(omendb *db, const struct search_request *request,
                              struct work_wait *wait, int *code)
{
    if (*code != OMENDB_NOMEM)
        return 0;
    if (wait->until_us == 0 && request->deadline_us != 0) {
        uint64_t until = db->storage.vfs->now_us(db->storage.vfs->context) + db->stall_timeout_us;
        wait->until_us = request->deadline_us < until ? request->deadline_us : until;
    }
    if (!work_relieve(db, wait))
        return 0;
    *code = search_check_deadline(request);
    return *code == OMENDB_OK;
}

OMENDB_API int omendb_search(omendb_collection *collection, omendb_txn *txn,
                             const omendb_query *query, uint64_t *ids, float *distances,
                             size_t *count)
{
    struct search_request request;
    struct search_predicate predicate;
    struct work_wait wait = {0};
    omendb_explain explain;
    if (count == NULL || ids == NULL)
        return api_null(count == NULL ? "count" : "ids");
    *count = 0;
    int code = api_check_query(collection, txn, query, 1);
    if (code != OMENDB_OK)
        return code;
    omendb *db = collection->db;
    const omendb_vfs *vfs = db->storage.vfs;
    uint64_t begin = query->explain == NULL ? 0 : vfs->now_us(vfs->context);
    api_request(collection, txn, query, &predicate, &request);
    do {
        code = api_try_search(collection, txn, query, &request, ids, distances, count, &explain);
    } while (api_relieve_search(db, &request, &wait, &code));
    if (query->explain != NULL && code == OMENDB_OK) {
        explain.time_us = vfs->now_us(vfs->context) - begin;
        *query->explain = explain;
    }
    return code;
}

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
        code = search_run(&request, scratch, ids, distances, &count, &explain);
    for (size_t i = count; i < request.k; i++) {
        ids[i] = OMENDB_ID_AUTO;
        if (distances != NULL)
            distances[i] = INFINITY;
    }
    if (batch->counts != NULL)
        batch->counts[index] = count;
    return code;
}

/* Threads take the queries in runs, so that they do not meet at each. */
#define API_BATCH_RUN 16

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
    struct search_request request;
    struct search_predicate predicate;
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
    api_request(collection, txn, query, &predicate, &request);
    struct work_wait wait = {0};
    struct api_batch batch = {
        &request,
        vectors,
        scalar_bytes((omendb_scalar)query->vector_type, collection->collection->schema.dim),
        query->vector_type,
        count,
        ids,
        distances,
        counts};
    do {
        struct version *version = api_version(collection, txn, &request.commit);
        request.version = version;
        code =
            work_parallel(collection->db, (count - 1) / API_BATCH_RUN + 1, api_search_run, &batch);
        version_release(version);
    } while (api_relieve_search(collection->db, &request, &wait, &code));
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

#undef API_STRETCH_EF
#undef API_BATCH_RUN
