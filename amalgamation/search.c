/* search.c: one query over all sources of a version.
 *
 * Each memtable and segment is asked on its own (search_scan.c), with the effort that its plan
 * gives it (search_plan.c); the hits are named, and merged by (distance, id).
 *
 * A scan of a whole source gives of the rows at the k-th distance those with the lowest ids, so
 * that an exact answer does not depend on where rows are stored. It keeps a few rows more than k;
 * where the last of them is still at that distance, the source is scanned once more for all that
 * are, unless other sources or the radius have decided already.
 *
 * In a writing transaction its own records are compared one by one, and the stored rows that it
 * changed are left out. Few of those are asked for on top of k and dropped by id; many are hidden
 * from the walk as deleted rows are, which looks up each row that comes near. So neither the effort
 * nor the memory of a search follows from what the transaction wrote. */
#include "search_internal.h"
#include "sort.h"

#include <float.h>

/* Beyond the hits and search_ties: room for hits with ids, so that what is gathered is seldom put
 * in order. */
#define SEARCH_FOUND(k) ((k) / 4 + 64)
/* Stored rows hidden by the transaction that are asked for on top of k. */
#define SEARCH_HIDDEN_FEW 32
/* The transaction's own records: looks at the clock between so many, put in order so many at least
 * at once. */
#define SEARCH_OWN_RUN  4096
#define SEARCH_OWN_SORT 256
/* Searches with a scratch between two notes that the collection is searched. */
#define SEARCH_TELL_EACH 32

/* Rows of all sources that their row_limit lets a search see. */
static uint64_t search_visible_rows(const struct search_request *request)
{
    const struct version *version = request->version;
    uint64_t rows = 0;
    for (uint32_t i = 0; i < version->memtable_count; i++)
        rows += memtable_visible_rows(version->memtables[i], request->commit);
    for (uint32_t i = 0; i < version->segment_count; i++)
        rows += version->segments[i]->info.rows;
    return rows;
}

static int search_is_excluded(const struct search_request *request, uint64_t id)
{
    size_t low = 0, high = request->excluded_count;
    if (id == request->excluded_id)
        return 1;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (request->excluded[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < request->excluded_count && request->excluded[low] == id;
}

static int search_before(const void *left, const void *right)
{
    const struct search_hit *a = left, *b = right;
    return a->distance < b->distance || (a->distance == b->distance && a->id < b->id);
}

static int search_compare(const void *left, const void *right)
{
    return search_before(right, left) - search_before(left, right);
}

/* Rows of a source on their way to the caller: scratch->found[0..count). */
struct search_naming {
    const struct search_request *request;
    const struct search_source *source;
    struct scratch *scratch;
    size_t count;
    /* Of rows at one distance the lowest ids: */
    float edge;       /* as search_edge tells it */
    size_t begin;     /* where they begin in `found` */
    size_t wanted;    /* how many of them */
    uint64_t last_id; /* higher ones are not among them */
};

/* A distance as it is told, by which all sources are merged; where the factor leaves nothing of it,
 * that of the stored vectors. */
static float search_edge(const struct search_request *request, float distance)
{
    const float factor = request->collection->distance_factor;
    return factor >= FLT_MIN ? distance * factor : distance;
}

/* Unless the transaction changed the record, or it is the excluded one. */
static int search_name_row(struct search_naming *naming, uint32_t row, float distance)
{
    const struct search_request *request = naming->request;
    struct search_hit hit = {distance * request->collection->distance_factor, 0};
    int code = search_source_id(naming->source, row, &hit.id);
    if (code != OMENDB_OK)
        return code;
    if (!search_is_excluded(request, hit.id) &&
        (request->txn == NULL || txn_find(request->txn, request->collection, hit.id) == NULL))
        naming->scratch->found[naming->count++] = hit;
    return OMENDB_OK;
}

static void search_keep_lowest_ids(struct search_naming *naming)
{
    struct search_hit *found = naming->scratch->found;
    sort_array(found + naming->begin, naming->count - naming->begin, sizeof *found, search_compare);
    if (naming->count < naming->begin + naming->wanted)
        return;
    naming->count = naming->begin + naming->wanted;
    naming->last_id = found[naming->count - 1].id;
}

static int search_name_tie(void *context, uint32_t row, float distance)
{
    struct search_naming *naming = context;
    uint64_t id;
    if (search_edge(naming->request, distance) != naming->edge)
        return OMENDB_OK;
    int code = search_source_id(naming->source, row, &id);
    if (code != OMENDB_OK || id > naming->last_id)
        return code;
    if (naming->count == naming->scratch->found_capacity)
        search_keep_lowest_ids(naming);
    return search_name_row(naming, row, distance);
}

/* All rows at the distance of the k-th are looked at once more: the lowest `k` ids of them. */
static int search_name_ties(struct search_naming *naming, size_t k, struct graph_counters *counters)
{
    const struct search_request *request = naming->request;
    const struct search_source *source = naming->source;
    const struct graph_filter filter = search_scan_filter(source);
    uint32_t first = 0;
    int code = OMENDB_OK;
    naming->begin = naming->count;
    naming->wanted = k;
    naming->last_id = UINT64_MAX;
    while (first < source->row_limit && code == OMENDB_OK) {
        uint32_t left = source->row_limit - first;
        uint32_t last = first + (left < SEARCH_SCAN_RUN ? left : SEARCH_SCAN_RUN);
        code = graph_scan_each(&source->view, request->vector, first, last, &filter,
                               search_name_tie, naming, counters);
        if (code == OMENDB_OK)
            code = search_check_deadline(request);
        first = last;
    }
    search_keep_lowest_ids(naming);
    return code;
}

/* Of `count` hits, how many are named: the k nearest with all at the distance of the k-th; or only
 * those nearer than it, where others at it may have been left out: *tied. */
static size_t search_named(const struct search_request *request, const struct graph_hit *hits,
                           size_t k, size_t count, float *edge, int *tied)
{
    size_t named = k;
    *tied = 0;
    if (count <= k)
        return count;
    *edge = search_edge(request, hits[k - 1].distance);
    while (named < count && search_edge(request, hits[named].distance) == *edge)
        named++;
    *tied = named == k + search_ties(request, k);
    while (*tied && named > 0 && search_edge(request, hits[named - 1].distance) == *edge)
        named--;
    return named;
}

/* Whether hits at the distance of this one cannot be among the k best, of which other sources gave
 * `best`. */
static int search_is_beyond(const struct search_request *request, const struct scratch *scratch,
                            size_t best, size_t k, const struct graph_hit *hit)
{
    const float distance = hit->distance * request->collection->distance_factor;
    return (best == k && scratch->best[k - 1].distance < distance) ||
           (request->use_radius && !(distance <= request->radius));
}

/* Rows to ids; equal distances, which came in the order of rows, into the order of ids. */
static int search_name_hits(struct search_naming *naming, size_t k, size_t count, size_t best,
                            struct graph_counters *counters)
{
    struct scratch *scratch = naming->scratch;
    int code = OMENDB_OK, tied;
    size_t named = search_named(naming->request, scratch->hits, k, count, &naming->edge, &tied);
    for (size_t i = 0; i < named && code == OMENDB_OK; i++)
        code = search_name_row(naming, scratch->hits[i].row, scratch->hits[i].distance);
    if (code != OMENDB_OK)
        return code;
    sort_nearly_sorted(scratch->found, 1, naming->count, sizeof *scratch->found, search_before,
                       search_compare);
    if (!tied || search_is_beyond(naming->request, scratch, best, k, &scratch->hits[named]))
        return OMENDB_OK;
    return search_name_ties(naming, k - named, counters);
}

/* Merges `found` into `best`, keeping the first k. */
static void search_merge(struct scratch *scratch, size_t found, size_t k, size_t *best)
{
    size_t a = 0, b = 0, out = 0;
    while (out < k && (a < *best || b < found)) {
        int take_best =
            b == found || (a < *best && search_before(&scratch->best[a], &scratch->found[b]));
        scratch->merged[out++] = take_best ? scratch->best[a++] : scratch->found[b++];
    }
    struct search_hit *merged = scratch->merged;
    scratch->merged = scratch->best;
    scratch->best = merged;
    *best = out;
}

/* Of the transaction's writes to the collection: records that it has, stored rows that it hides. */
static void search_count_writes(const struct search_request *request, size_t *own, size_t *hidden)
{
    const omendb_txn *txn = request->txn;
    *own = *hidden = 0;
    for (size_t i = 0; txn != NULL && i < txn->write_count; i++) {
        const struct txn_write *write = &txn->writes[i];
        *own += write->collection == request->collection && write->vector != NULL;
        *hidden += write->collection == request->collection && !write->added;
    }
}

static void search_merge_own(struct scratch *scratch, size_t found, size_t k, size_t *best)
{
    sort_array(scratch->found, found, sizeof *scratch->found, search_compare);
    search_merge(scratch, found, k, best);
}

/* The transaction's own records, compared one by one. Those nearer than the k-th best are gathered
 * in `found` and merged when it is full. */
static int search_own_writes(const struct search_request *request, struct scratch *scratch,
                             size_t k, size_t *best, struct graph_counters *counters,
                             omendb_explain *explain)
{
    const omendb_txn *txn = request->txn;
    size_t found = 0;
    for (size_t i = 0; i < txn->write_count; i++) {
        const struct txn_write *write = &txn->writes[i];
        if (i % SEARCH_OWN_RUN == 0 && search_check_deadline(request) != OMENDB_OK)
            return OMENDB_TIMEOUT;
        if (write->collection != request->collection || write->vector == NULL ||
            search_is_excluded(request, write->id))
            continue;
        explain->matches_tested += request->predicate != NULL;
        if (!search_record_matches(request->predicate, write->id, write->document))
            continue;
        float distance = request->collection->kernel->pair(request->vector, write->vector,
                                                           request->collection->schema.dim);
        struct search_hit hit = {distance * request->collection->distance_factor, write->id};
        counters->distances++;
        if (*best == k && !search_before(&hit, &scratch->best[k - 1]))
            continue;
        scratch->found[found++] = hit;
        if (found == scratch->found_capacity) {
            search_merge_own(scratch, found, k, best);
            found = 0;
        }
    }
    search_merge_own(scratch, found, k, best);
    return OMENDB_OK;
}

static int search_source(const struct search_request *request, struct search_source *source,
                         struct scratch *scratch, size_t k, const struct search_plan *plan,
                         size_t *best, struct graph_counters *counters, omendb_explain *explain)
{
    struct search_naming naming = {.request = request, .source = source, .scratch = scratch};
    struct calibration_answer answer;
    size_t count;
    search_effort(request, plan, source, k, &answer);
    source->hiding = request->hidden_share > 0.0 ? request : NULL;
    source->hides = source->begins != NULL || source->hiding != NULL ||
                    atomic_load_explicit(&source->tombstones->dead, memory_order_acquire) != 0;
    int code = search_check_deadline(request);
    if (code == OMENDB_OK)
        code = search_begin_predicate(request, scratch, &answer, source);
    if (code == OMENDB_OK)
        code = search_rows(request, source, scratch, k, &answer, &count, counters, explain);
    if (code == OMENDB_OK)
        code = search_name_hits(&naming, k, count, *best, counters);
    if (code == OMENDB_OK && source->plan != NULL)
        code = source->plan->code;
    if (code == OMENDB_OK)
        search_merge(scratch, naming.count, k, best);
    explain->segments++;
    return code;
}

OMENDB_INTERNAL int search_run(const struct search_request *asked, struct scratch *scratch,
                               uint64_t *ids, float *distances, size_t *count,
                               omendb_explain *explain)
{
    struct search_request terms = *asked, *request = &terms;
    const struct version *version = request->version;
    struct graph_counters counters = {0, 0};
    struct search_source source;
    size_t best = 0, own, hidden;
    search_count_writes(asked, &own, &hidden);
    uint64_t largest, rows = search_total_rows(version, &largest);
    terms.visible_rows = search_visible_rows(asked);
    terms.largest = largest;
    if (hidden > SEARCH_HIDDEN_FEW) {
        terms.hidden_share = (double)hidden / (double)rows;
        hidden = 0;
    }
    rows += own;
    /* Each hit that is left out by id takes a place of its own. */
    size_t k = request->k < rows ? request->k : (size_t)rows;
    size_t wanted = k + hidden + search_excluded_count(request);
    size_t found = wanted + search_ties(request, wanted) + SEARCH_FOUND(wanted);
    found = own != 0 && found < SEARCH_OWN_SORT ? SEARCH_OWN_SORT : found;
    struct search_plan plan;
    search_make_plan(request, wanted, &plan);
    *count = 0;
    explain->recall = 1.0f;
    if (++scratch->searches % SEARCH_TELL_EACH == 0)
        work_notice_searching(request->collection);
    memory_begin_reading();
    int code = scratch_reserve(scratch, GRAPH_AWAY_EF(plan.ef) + 1 + SEARCH_RERANK(wanted), found,
                               wanted + 1, 0);
    for (uint32_t i = 0; i < version->memtable_count && code == OMENDB_OK; i++) {
        search_memtable_source(request, i, &source);
        code = search_source(request, &source, scratch, wanted, &plan, &best, &counters, explain);
    }
    for (uint32_t i = 0; i < version->segment_count && code == OMENDB_OK; i++) {
        search_segment_source(request, i, &source);
        code = search_source(request, &source, scratch, wanted, &plan, &best, &counters, explain);
    }
    if (code == OMENDB_OK && own != 0)
        code = search_own_writes(request, scratch, wanted, &best, &counters, explain);
    memory_end_reading();
    if (code != OMENDB_OK)
        return code;
    for (size_t i = 0; i < best && i < k; i++) {
        if (request->use_radius && !(scratch->best[i].distance <= request->radius))
            break;
        ids[i] = scratch->best[i].id;
        if (distances != NULL)
            distances[i] = scratch->best[i].distance;
        *count = i + 1;
    }
    explain->expanded += counters.expanded;
    explain->distances += counters.distances;
    if ((explain->warnings & OMENDB_EXPLAIN_UNCALIBRATED) != 0 && explain->recall == 1.0f)
        explain->recall = 0.0f;
    return OMENDB_OK;
}

#undef SEARCH_FOUND
#undef SEARCH_HIDDEN_FEW
#undef SEARCH_OWN_RUN
#undef SEARCH_OWN_SORT
#undef SEARCH_TELL_EACH
