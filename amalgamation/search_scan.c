/* search_scan.c: the nearest rows of one source: those in its graph by a walk, those not in it one
 * by one.
 *
 * A source that is small is scanned as a whole: that costs no more than the walk and is exact. When
 * a walk finds fewer than k although more rows are visible (deleted rows can cut a graph in two),
 * the source is scanned: k means k. A scan of a whole source keeps a few rows more than k, for
 * those at the distance of the k-th (search.c).
 *
 * Rows are compared by their vectors, or by their codes where these are as good or there are many
 * rows: then the best are compared again by their vectors. Where the columns list what matches, a
 * scan compares only that; where a batch compares it again and again, put together. */
#include "search_internal.h"
#include "prefetch.h"
#include "sort.h"

#include <math.h>
#include <string.h>

#define SEARCH_RERANK_RUN 16
/* Rows beyond the k-th that a scan of all rows of a source keeps, for those at its distance: with
 * few distances, as Hamming's are, about as many as are nearer. */
#define SEARCH_TIES         4
#define SEARCH_TIES_BITS(k) ((k) + 16)
#define SEARCH_SCAN_EXACTLY 128 /* rows not in a graph, for which codes are a detour */
#define SEARCH_SCAN_LISTED  ((size_t)1 << 20) /* bytes of vectors from which codes are faster */

static int search_hit_before(const void *left, const void *right)
{
    const struct graph_hit *a = left, *b = right;
    return a->distance < b->distance || (a->distance == b->distance && a->row < b->row);
}

static int search_compare_hits(const void *left, const void *right)
{
    return search_hit_before(right, left) - search_hit_before(left, right);
}

static void search_order_hits(struct graph_hit *hits, size_t done, size_t count)
{
    sort_nearly_sorted(hits, done, count, sizeof *hits, search_hit_before, search_compare_hits);
}

/* The distances of vectors in place of those of codes; in order again, with the first `done`, which
 * have them already. */
static int search_rerank(const struct search_source *source, const uint8_t *query,
                         struct graph_hit *hits, size_t done, size_t count)
{
    const struct graph_view *view = &source->view;
    const void *vectors[SEARCH_RERANK_RUN];
    float distances[SEARCH_RERANK_RUN];
    for (size_t first = done; first < count; first += SEARCH_RERANK_RUN) {
        size_t run = count - first < SEARCH_RERANK_RUN ? count - first : SEARCH_RERANK_RUN;
        for (size_t i = 0; i < run; i++) {
            const uint8_t *vector = rows_at(&view->vectors, hits[first + i].row);
            int code = source->segment == NULL
                           ? OMENDB_OK
                           : segment_vector(source->segment, hits[first + i].row, &vector);
            if (code != OMENDB_OK)
                return code;
            prefetch_bytes(vector, view->vectors.stride);
            vectors[i] = vector;
        }
        view->kernel->many(query, vectors, run, view->dim, distances);
        for (size_t i = 0; i < run; i++)
            hits[first + i].distance = distances[i];
    }
    search_order_hits(hits, done, count);
    return OMENDB_OK;
}

/* A segment that is walked often is copied into memory in the background. */
static void search_count_walk(const struct search_request *request, struct segment *segment)
{
    if (segment == NULL ||
        atomic_load_explicit(&segment->walks, memory_order_relaxed) >= 2 * SEGMENT_WALKS_TO_HEAT)
        return;
    uint32_t walks = atomic_fetch_add_explicit(&segment->walks, 1, memory_order_relaxed) + 1;
    if (walks % SEGMENT_WALKS_TO_HEAT == 0)
        hot_notice(request->collection, segment);
}

/* The query as the codes of the source are compared with; 1 where such a distance is that of the
 * vectors. */
static int search_encode(const struct search_request *request, const struct search_source *source,
                         struct scratch *scratch, int *exact)
{
    if (scratch_reserve_code(scratch, source->walk.vectors.stride) != OMENDB_OK)
        return OMENDB_NOMEM;
    *exact = codes_encode_query(source->codes, request->vector, scratch->code) &&
             source->codes_are_exact;
    return OMENDB_OK;
}

/* What was chosen, put together, or NULL: only where more queries of a batch compare just that.
 * Without memory for it they do so where it is. */
static int search_gather(const struct search_source *source, int codes,
                         const struct graph_gathered **gathered)
{
    const struct graph_view *view = codes ? &source->walk : &source->view;
    struct scratch_answers *kept = source->kept;
    int code = OMENDB_OK;
    *gathered = NULL;
    if (!search_gathers(source, source->chosen_count, view->vectors.stride))
        return OMENDB_OK;
    if (kept->gathered.count != 0 && kept->gathered_codes != codes)
        kept->gathered.count = 0;
    if (kept->gathered.count == 0)
        code = graph_gather(&kept->gathered, view, source->chosen, source->chosen_count);
    kept->gathered_codes = codes;
    *gathered = code == OMENDB_OK ? &kept->gathered : NULL;
    return code == OMENDB_NOMEM ? OMENDB_OK : code;
}

OMENDB_INTERNAL size_t search_ties(const struct search_request *request, size_t k)
{
    return request->collection->schema.metric == OMENDB_HAMMING ? SEARCH_TIES_BITS(k) : SEARCH_TIES;
}

/* Rows [first, row_limit) one by one. */
static int search_scan(const struct search_request *request, const struct search_source *source,
                       struct scratch *scratch, uint32_t first, size_t k,
                       const struct graph_filter *filter, size_t *count,
                       struct graph_counters *counters)
{
    const struct graph_gathered *gathered;
    int code = search_gather(source, 0, &gathered);
    if (code == OMENDB_OK && gathered != NULL)
        return graph_scan_gathered(gathered, scratch->graph, request->vector, k, scratch->hits,
                                   count, counters);
    while (first < source->row_limit && code == OMENDB_OK) {
        uint32_t left = source->row_limit - first;
        uint32_t last = first + (left < SEARCH_SCAN_RUN ? left : SEARCH_SCAN_RUN);
        search_match_rows(source, first, last);
        code = graph_scan(&source->view, scratch->graph, request->vector, first, last, k, filter,
                          scratch->hits, count, counters);
        if (code == OMENDB_OK)
            code = search_check_deadline(request);
        first = last;
    }
    return code;
}

/* By codes, the nearest `kept` of rows [first, row_limit) that the filter lets through. */
static int search_scan_by_codes(const struct search_request *request,
                                const struct search_source *source, struct scratch *scratch,
                                uint32_t first, size_t kept, const struct graph_filter *filter,
                                struct graph_hit *hits, size_t *count,
                                struct graph_counters *counters)
{
    const struct graph_gathered *gathered;
    int code = search_gather(source, 1, &gathered);
    if (code == OMENDB_OK && gathered != NULL)
        return graph_scan_gathered(gathered, scratch->graph, scratch->code, kept, hits, count,
                                   counters);
    while (first < source->row_limit && code == OMENDB_OK) {
        const int in_graph = source->segment != NULL && first < source->indexed;
        const uint32_t end = in_graph ? source->indexed : source->row_limit;
        const uint32_t last = end - first < SEARCH_SCAN_RUN ? end : first + SEARCH_SCAN_RUN;
        search_match_rows(source, first, last);
        code = graph_scan(in_graph ? &source->walk : &source->tail, scratch->graph, scratch->code,
                          first, last, kept, filter, hits, count, counters);
        if (code == OMENDB_OK)
            code = search_check_deadline(request);
        first = last;
    }
    return code;
}

/* The best of search_scan_by_codes compared again, after *count hits that have their distances, in
 * two parts. *told = 0: the last of them still were among the k nearest, so rows that the codes put
 * behind all these may be, too. */
static int search_rerank_codes(const struct search_source *source, const uint8_t *query,
                               struct graph_hit *hits, size_t k, size_t found, size_t *count,
                               int *told)
{
    const size_t begun = *count, sure = begun + found - found / 3, all = begun + found;
    float nearer = INFINITY;
    int code = search_rerank(source, query, hits, begun, sure);
    if (code == OMENDB_OK && sure >= k)
        nearer = hits[k - 1].distance;
    if (code == OMENDB_OK)
        code = search_rerank(source, query, hits, sure, all);
    *told = found < SEARCH_RERANK(k) || !(hits[k - 1].distance < nearer);
    *count = all < k ? all : k;
    return code;
}

/* Rows [first, row_limit), as search_scan, but by codes; the best are compared again where those
 * are not exact. lossy = 0: then they are not used, nor where rows are closer together than the
 * codes tell apart. */
static int search_scan_codes(const struct search_request *request,
                             const struct search_source *source, struct scratch *scratch,
                             uint32_t first, size_t k, int lossy, const struct graph_filter *filter,
                             size_t *count, struct graph_counters *counters)
{
    const int whole = first == 0;
    size_t found = 0;
    int exact, told = 0, code = search_encode(request, source, scratch, &exact);
    if (code != OMENDB_OK)
        return code;
    if (exact)
        return search_scan_by_codes(request, source, scratch, first, k, filter, scratch->hits,
                                    count, counters);
    if (!lossy)
        return search_scan(request, source, scratch, first, k, filter, count, counters);
    code = search_scan_by_codes(request, source, scratch, first, SEARCH_RERANK(k), filter,
                                scratch->hits + *count, &found, counters);
    if (code == OMENDB_OK)
        code = search_rerank_codes(source, request->vector, scratch->hits, k, found, count, &told);
    counters->distances += found;
    if (code != OMENDB_OK || told || !whole)
        return code;
    *count = 0;
    return search_scan(request, source, scratch, 0, k, filter, count, counters);
}

/* The nearest rows that a walk finds, by the distances of their vectors. */
static int search_walk(const struct search_request *request, const struct search_source *source,
                       struct scratch *scratch, const struct graph_effort *effort,
                       const struct graph_filter *filter, size_t *count,
                       struct graph_counters *counters)
{
    const uint8_t *query = request->vector;
    struct graph_effort terms = *effort;
    int exact = 1, code = OMENDB_OK;
    terms.wanted = SEARCH_RERANK(effort->k);
    search_count_walk(request, source->segment);
    if (source->codes != NULL) {
        code = search_encode(request, source, scratch, &exact);
        query = scratch->code;
    }
    if (code == OMENDB_OK)
        code = graph_search(&source->walk, scratch->graph, query, &terms, filter, scratch->hits,
                            count, counters);
    if (code != OMENDB_OK || exact)
        return code;
    *count = *count < terms.wanted ? *count : terms.wanted;
    counters->distances += *count;
    return search_rerank(source, request->vector, scratch->hits, 0, *count);
}

OMENDB_INTERNAL int search_walk_target(struct collection *collection,
                                       const struct search_target *target, const uint8_t *vector,
                                       struct scratch *scratch, const struct graph_effort *effort,
                                       size_t *count, struct graph_counters *counters)
{
    struct search_request request = {.collection = collection, .vector = vector};
    struct search_source source;
    memset(&source, 0, sizeof source);
    source.view = target->full;
    source.walk = target->walk;
    source.codes = target->codes.step == 0.0f ? NULL : &target->codes;
    source.codes_are_exact = target->codes_are_exact;
    return search_walk(&request, &source, scratch, effort, NULL, count, counters);
}

/* The hits are those of a walk. */
static void search_tell(const struct calibration_answer *answer, omendb_explain *explain)
{
    explain->warnings |= answer->warnings;
    if ((answer->warnings & OMENDB_EXPLAIN_UNCALIBRATED) == 0 && answer->recall < explain->recall)
        explain->recall = answer->recall;
}

/* Hits of a walk, at most k. *walked: rows to walk; becomes 0 where all are to be scanned instead.
 */
static int search_walk_rows(const struct search_request *request,
                            const struct search_source *source, struct scratch *scratch, size_t k,
                            const struct calibration_answer *answer, struct search_look *look,
                            uint32_t *walked, size_t *count, struct graph_counters *counters,
                            omendb_explain *explain)
{
    struct graph_filter in_graph = search_filter(source);
    struct graph_effort effort = {.ef = answer->ef, .k = answer->k, .stretch = answer->stretch};
    if (request->predicate != NULL) {
        effort.fits = 1;
        effort.share = search_share(source, look, &effort.share_sample);
        effort.look = search_look;
        effort.look_context = look;
        effort.look_at = look->at;
    }
    in_graph.row_limit = *walked;
    int code = search_walk(request, source, scratch, &effort, &in_graph, count, counters);
    *count = *count < k ? *count : k;
    explain->graph_rows += *walked;
    explain->ef = answer->ef > explain->ef ? answer->ef : explain->ef;
    if (code == OMENDB_DONE || (*count < k && *count < *walked)) {
        *count = *walked = 0;
        explain->path |= OMENDB_PATH_WALK_THEN_SCAN;
        return code == OMENDB_DONE ? OMENDB_OK : code;
    }
    search_tell(answer, explain);
    explain->path |= OMENDB_PATH_WALK;
    return code;
}

/* Whether so many listed rows, whose vectors are more than a cache near the core holds, are
 * compared as a walk compares them, by codes of which the best are compared again: where without a
 * condition a walk is what there is, too, and a curve tells what it finds. */
static int search_trusts_codes(const struct search_request *request,
                               const struct search_source *source,
                               const struct calibration_answer *answer, uint32_t rows, size_t k)
{
    const uint32_t doubts = OMENDB_EXPLAIN_UNCALIBRATED | OMENDB_EXPLAIN_RECALL_BEYOND;
    return rows > SEARCH_SCAN_LISTED / source->view.vectors.stride && rows / 4 > SEARCH_RERANK(k) &&
           (answer->warnings & doubts) == 0 &&
           !search_is_small(request, source->indexed, answer->work);
}

/* All that a walk did not look at; all, where none did. */
static int search_scan_rows(const struct search_request *request,
                            const struct search_source *source, struct scratch *scratch, size_t k,
                            const struct calibration_answer *answer, uint32_t walked, size_t *count,
                            struct graph_counters *counters, omendb_explain *explain)
{
    const struct graph_filter filter = search_scan_filter(source);
    const int listed = walked == 0 && source->chosen != NULL;
    const uint32_t rows = listed ? source->chosen_count : source->row_limit - walked;
    const int lossy =
        listed ? search_trusts_codes(request, source, answer, rows, k) : rows > SEARCH_SCAN_EXACTLY;
    int code;
    explain->scanned_rows += rows;
    if (listed && lossy && !request->exact)
        search_tell(answer, explain);
    if (source->codes != NULL &&
        (listed ? !request->exact && (lossy || source->codes_are_exact) : walked != 0 && lossy))
        code =
            search_scan_codes(request, source, scratch, walked, k, lossy, &filter, count, counters);
    else
        code = search_scan(request, source, scratch, walked,
                           walked == 0 ? k + search_ties(request, k) : k, &filter, count, counters);
    if (code == OMENDB_OK && walked == 0 && source->predicate != NULL)
        source->matches->complete = 1;
    return code;
}

OMENDB_INTERNAL int search_rows(const struct search_request *request, struct search_source *source,
                                struct scratch *scratch, size_t k,
                                const struct calibration_answer *answer, size_t *count,
                                struct graph_counters *counters, omendb_explain *explain)
{
    uint32_t walked = source->indexed < source->row_limit ? source->indexed : source->row_limit;
    int code = OMENDB_OK;
    struct search_look look = {
        .source = source, .rows = walked, .k = k, .work = answer->work, .cost = answer->cost};
    if (source->chosen != NULL)
        look.share = (double)source->chosen_count / ((double)source->row_limit + 1.0);
    *count = 0;
    if (source->row_limit == 0)
        return OMENDB_OK;
    if (request->exact || search_is_small(request, walked, answer->work) ||
        (request->predicate != NULL && (look.at = search_first_look(&look)) == 0))
        walked = 0;
    const int walks = walked != 0;
    if (walks)
        code = search_walk_rows(request, source, scratch, k, answer, &look, &walked, count,
                                counters, explain);
    if (code == OMENDB_OK && walked == 0 && search_lists_part(source))
        code = search_choose_listed(request, source);
    if (walked == 0 && source->chosen != NULL)
        explain->path |= OMENDB_PATH_MATCHES;
    else if (!walks)
        explain->path |= OMENDB_PATH_SCAN;
    if (code == OMENDB_OK && walked < source->row_limit)
        code =
            search_scan_rows(request, source, scratch, k, answer, walked, count, counters, explain);
    if (code == OMENDB_OK)
        search_tell_matches(request, source, &look, walked == 0, explain);
    return code;
}

#undef SEARCH_RERANK_RUN
#undef SEARCH_TIES
#undef SEARCH_TIES_BITS
#undef SEARCH_SCAN_EXACTLY
#undef SEARCH_SCAN_LISTED
