/* api_query.c: a query of the caller on its way to the engine: what its fields may say, which
 * vector it is compared with, which records are left out of its hits.
 *
 * EXAMPLES. With p and n the means of the positive and of the negative ones the vector is
 * p + (p - n), that is 2p - n, or p where there are no negative ones: the positive ones moved away
 * from the negative ones by as much as they are apart. Under cosine each example counts by its
 * direction alone. Of bits each is what the most of p + (p - n) says: 1 above a half.
 *
 * Rejected: comparing each record with every example (the best score of several walks costs a walk
 * each, and the nearest of a score that is no distance are not what a graph leads to). */
#include "api.h"
#include "records.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Candidates of a search that stops by its stretch and names no ef. */
#define API_STRETCH_EF 2000

/* ------------------------------------------------------------------ checks */

static int api_check_effort(const omendb_query *query)
{
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
    return OMENDB_OK;
}

static int api_check_examples(const omendb_query *query, int one)
{
    const size_t positive = query->positive_count, negative = query->negative_count;
    if ((positive != 0 && query->positive_ids == NULL) ||
        (negative != 0 && query->negative_ids == NULL))
        return api_null(positive != 0 && query->positive_ids == NULL ? "query.positive_ids"
                                                                     : "query.negative_ids");
    if (positive == 0 && negative == 0)
        return OMENDB_OK;
    if (positive == 0)
        return error_set(OMENDB_INVALID,
                         "query.negative_count is %zu, but positive_count is 0: at least one "
                         "positive example is needed",
                         negative);
    if (positive > OMENDB_EXAMPLES_MAX || negative > OMENDB_EXAMPLES_MAX)
        return error_set(OMENDB_TOOBIG,
                         "%zu positive and %zu negative examples; at most %d of each", positive,
                         negative, OMENDB_EXAMPLES_MAX);
    if (!one || query->vector != NULL || query->id != OMENDB_ID_AUTO || query->key != NULL)
        return error_set(OMENDB_INVALID,
                         "query.positive_count is %zu beside a vector, an id or a key; set one",
                         positive);
    return OMENDB_OK;
}

static int api_check_groups(const omendb_query *query)
{
    if (query->group_by == NULL)
        return query->group_size == 0
                   ? OMENDB_OK
                   : error_set(OMENDB_INVALID, "query.group_size is %zu, but group_by is NULL",
                               query->group_size);
    return api_field(query->group_by, "query.group_by");
}

OMENDB_INTERNAL int api_check_query(omendb_collection *collection, const omendb_txn *txn,
                                    const omendb_query *query, int one)
{
    int code = api_reading(collection, txn);
    if (code != OMENDB_OK)
        return code;
    if (query == NULL)
        return api_null("query");
    code = api_struct_read(query, sizeof *query, "query");
    if (code == OMENDB_OK)
        code = api_check_examples(query, one);
    if (code != OMENDB_OK)
        return code;
    if (query->vector == NULL && query->id == OMENDB_ID_AUTO && query->key == NULL &&
        query->positive_count == 0 && one)
        return error_set(OMENDB_INVALID,
                         "query.vector is NULL, and neither query.id nor query.key is set");
    if (query->vector != NULL && query->key != NULL && one)
        return error_set(OMENDB_INVALID, "query.vector is set beside query.key; set one");
    if (query->k == 0)
        return error_set(OMENDB_INVALID, "query.k is 0; at least 1 hit must be asked for");
    code = api_check_effort(query);
    if (code != OMENDB_OK)
        return code;
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
    if (code == OMENDB_OK)
        code = api_check_groups(query);
    if (code != OMENDB_OK)
        return code;
    if (query->explain != NULL && one)
        return api_struct(query->explain->struct_size, sizeof *query->explain, "explain");
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ requests */

OMENDB_INTERNAL uint64_t api_deadline(const omendb *db, uint64_t timeout_us)
{
    const omendb_vfs *vfs = db->storage.vfs;
    if (timeout_us == 0)
        return 0;
    const uint64_t now = vfs->now_us(vfs->context);
    return timeout_us > UINT64_MAX - now ? UINT64_MAX : now + timeout_us;
}

OMENDB_INTERNAL void api_ask(omendb_collection *collection, omendb_txn *txn,
                             const omendb_query *query, struct api_asked *asked)
{
    struct search_request *request = &asked->request;
    *asked = (struct api_asked){.memory = &collection->db->memory};
    asked->predicate = (struct search_predicate){
        .match = query->match, .context = query->match_context, .filter = query->filter};
    request->collection = collection->collection;
    request->excluded_id = OMENDB_ID_AUTO;
    request->txn = txn != NULL && txn->write_count != 0 ? txn : NULL;
    request->predicate = query->match != NULL || query->filter != NULL ? &asked->predicate : NULL;
    request->k = query->k;
    request->stretch = query->stretch;
    request->ef = query->ef != 0          ? query->ef
                  : query->stretch > 0.0f ? API_STRETCH_EF
                                          : collection->collection->schema.ef;
    request->exact = query->exact != 0;
    request->use_radius = query->use_radius != 0;
    request->radius = query->radius;
    request->recall = query->recall;
    request->group_by = query->group_by;
    request->group_size = query->group_size == 0 ? 1 : query->group_size;
    request->deadline_us = api_deadline(collection->db, query->timeout_us);
}

OMENDB_INTERNAL void api_asked_end(struct api_asked *asked)
{
    memory_free(asked->memory, asked->excluded, asked->excluded_room * sizeof *asked->excluded);
    asked->excluded = NULL;
    asked->excluded_room = 0;
    asked->request.excluded = NULL;
    asked->request.excluded_count = 0;
}

/* ------------------------------------------------------------------ examples */

/* The sum of what examples weigh. */
struct api_mean {
    const struct collection *collection;
    double *sum; /* dim each */
    float *one;
};

static void api_mean_add(struct api_mean *mean, double weight)
{
    const uint32_t dim = mean->collection->schema.dim;
    double norm = 0.0;
    if (mean->collection->schema.metric == OMENDB_COSINE) {
        for (uint32_t i = 0; i < dim; i++)
            norm += (double)mean->one[i] * mean->one[i];
        weight = norm > 0.0 ? weight / sqrt(norm) : 0.0;
    }
    for (uint32_t i = 0; i < dim; i++)
        mean->sum[i] += weight * mean->one[i];
}

static int api_mean_add_records(struct api_mean *mean, const struct search_request *request,
                                const omendb_txn *txn, const uint64_t *ids, size_t count,
                                double weight)
{
    struct collection *collection = request->collection;
    const uint8_t *stored;
    int code = OMENDB_OK;
    for (size_t i = 0; i < count && code == OMENDB_OK; i++) {
        code = api_find_record(collection, request->version, request->commit, txn, ids[i], &stored,
                               NULL);
        if (code == OMENDB_OK)
            code = scalar_export(&collection->format, stored, OMENDB_F32, mean->one);
        if (code == OMENDB_OK)
            api_mean_add(mean, weight / (double)count);
    }
    return code;
}

/* What counts as above a half where halves are sums of rounded shares: of up to 1,024 examples the
 * next one is 4.8e-7 away. */
#define API_MAJORITY (0.5 + 1e-9)
/* A sum of directions that is shorter is rounding, and points nowhere. */
#define API_NOWHERE 1e-6

static int api_mean_has_direction(const struct api_mean *mean)
{
    double norm = 0.0;
    for (uint32_t i = 0; i < mean->collection->schema.dim; i++)
        norm += mean->sum[i] * mean->sum[i];
    return mean->collection->schema.metric != OMENDB_COSINE || norm > API_NOWHERE * API_NOWHERE;
}

/* The mean in the stored type. */
static int api_mean_store(const struct api_mean *mean, uint8_t *out)
{
    const uint32_t dim = mean->collection->schema.dim;
    if (mean->collection->schema.scalar == OMENDB_B1) {
        memset(out, 0, mean->collection->vector_bytes);
        for (uint32_t i = 0; i < dim; i++)
            out[i / 8] = (uint8_t)(out[i / 8] | (mean->sum[i] > API_MAJORITY) << (i % 8));
        return OMENDB_OK;
    }
    if (!api_mean_has_direction(mean))
        return error_set(OMENDB_INVALID, "the examples cancel each other: what is left is zero, "
                                         "which has no cosine");
    for (uint32_t i = 0; i < dim; i++)
        mean->one[i] = (float)mean->sum[i];
    return records_convert(mean->collection, mean->one, OMENDB_F32, out, RECORDS_ALONE);
}

static int api_exclude_examples(const omendb_query *query, struct api_asked *asked)
{
    const size_t count = query->positive_count + query->negative_count;
    size_t kept = 0;
    asked->excluded = memory_array(asked->memory, count, sizeof *asked->excluded);
    if (asked->excluded == NULL)
        return OMENDB_NOMEM;
    asked->excluded_room = count;
    memcpy(asked->excluded, query->positive_ids, query->positive_count * sizeof(uint64_t));
    if (query->negative_count != 0)
        memcpy(asked->excluded + query->positive_count, query->negative_ids,
               query->negative_count * sizeof(uint64_t));
    sort_array(asked->excluded, count, sizeof *asked->excluded, sort_compare_numbers);
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || asked->excluded[i] != asked->excluded[i - 1])
            asked->excluded[kept++] = asked->excluded[i];
    }
    asked->request.excluded = asked->excluded;
    asked->request.excluded_count = kept;
    return OMENDB_OK;
}

static int api_resolve_examples(const omendb_query *query, const omendb_txn *txn,
                                struct scratch *scratch, struct api_asked *asked)
{
    const struct search_request *request = &asked->request;
    const size_t dim = request->collection->schema.dim;
    struct api_mean mean = {.collection = request->collection};
    mean.sum = memory_zalloc(asked->memory, dim * sizeof *mean.sum);
    mean.one = memory_alloc(asked->memory, dim * sizeof *mean.one);
    int code = mean.sum == NULL || mean.one == NULL ? OMENDB_NOMEM : OMENDB_OK;
    if (code == OMENDB_OK)
        code = api_mean_add_records(&mean, request, txn, query->positive_ids, query->positive_count,
                                    query->negative_count == 0 ? 1.0 : 2.0);
    if (code == OMENDB_OK)
        code = api_mean_add_records(&mean, request, txn, query->negative_ids, query->negative_count,
                                    -1.0);
    if (code == OMENDB_OK)
        code = api_mean_store(&mean, scratch->vector);
    if (code == OMENDB_OK)
        code = api_exclude_examples(query, asked);
    memory_free(asked->memory, mean.sum, dim * sizeof *mean.sum);
    memory_free(asked->memory, mean.one, dim * sizeof *mean.one);
    return code;
}

/* ------------------------------------------------------------------ vectors */

static int api_resolve_record(const omendb_query *query, const omendb_txn *txn,
                              struct search_request *request)
{
    int code = OMENDB_OK;
    request->excluded_id = query->id;
    if (query->id == OMENDB_ID_AUTO)
        code = api_find_key(request->collection, request->version, request->commit, txn, query->key,
                            &request->excluded_id);
    return code != OMENDB_OK
               ? code
               : api_find_record(request->collection, request->version, request->commit, txn,
                                 request->excluded_id, &request->vector, NULL);
}

OMENDB_INTERNAL int api_resolve(const omendb_query *query, const omendb_txn *txn,
                                struct scratch *scratch, struct api_asked *asked)
{
    struct search_request *request = &asked->request;
    api_asked_end(asked);
    if (query->vector == NULL && query->positive_count == 0)
        return api_resolve_record(query, txn, request);
    int code = scratch_reserve(scratch, 0, 0, 0, request->collection->vector_bytes);
    request->vector = scratch->vector;
    if (code == OMENDB_OK && query->positive_count != 0) {
        memory_begin_reading();
        code = api_resolve_examples(query, txn, scratch, asked);
        memory_end_reading();
        return code;
    }
    return code != OMENDB_OK ? code
                             : records_convert(request->collection, query->vector,
                                               query->vector_type, scratch->vector, RECORDS_ALONE);
}

OMENDB_INTERNAL int api_relieve_search(omendb *db, const struct search_request *request,
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

#undef API_STRETCH_EF
#undef API_MAJORITY
#undef API_NOWHERE
