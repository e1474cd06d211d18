/* search.c: one query over all sources of a version.
 *
 * Each memtable and segment is asked on its own: rows in its graph by a walk, rows not in it one by
 * one; the hits are merged by (distance, id). A source that is small is scanned as a whole: that
 * costs no more than the walk and is exact. When a walk finds fewer than k although more rows are
 * visible (deleted rows can cut a graph in two), the source is scanned: k means k.
 *
 * A scan of a whole source gives of the rows at the k-th distance those with the lowest ids, so
 * that an exact answer does not depend on where rows are stored. It keeps a few rows more than k;
 * where the last of them is still at that distance, the source is scanned once more for all that
 * are, unless other sources or the radius have decided already.
 *
 * Under a predicate a walk keeps what matches and goes through all the rest. That may cost far more
 * than a scan, which tests every row but compares only those that match: so a walk that takes long
 * is looked at (search_look). It goes on while its progress so far, or the share of a sample that
 * matches, promises an end before it has cost what the scan would; beyond that the source is
 * scanned. Which of the two is cheaper need not be known before, nothing is spent on estimating
 * where the walk is short, and all together costs at most about twice the scan.
 *
 * Where the columns list what matches, the scan compares only that, by codes where it is much. It
 * comes first where it costs less than a walk of evenly spread matches would, as the curve tells;
 * but a long one only after a walk of a small part of its cost, which goes on where many of the
 * rows that it met match: they are about the query, and the walk is short.
 *
 * In a writing transaction its own records are compared one by one, and the stored rows that it
 * changed are left out. Few of those are asked for on top of k and dropped by id; many are hidden
 * from the walk as deleted rows are, which looks up each row that comes near. So neither the effort
 * nor the memory of a search follows from what the transaction wrote. */
#include "database.h"
#include "prefetch.h"
#include "sort.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* A walk computes some 10 to 20 distances for each candidate it keeps, at random places; a scan of
 * 8 for each is cheaper. */
#define SEARCH_SCAN_PER_CANDIDATE 8
/* What a walk by stretch costs, whatever its cap, where no curve tells. */
#define SEARCH_STRETCH_EF 128

/* Hits of a walk over codes that are compared again by their vectors: codes of 8 bits misplace a
 * neighbour by few places. */
#define SEARCH_RERANK(k)  (3 * (k) + 20)
#define SEARCH_RERANK_RUN 16
#define SEARCH_SCAN_RUN   65536 /* rows between looks at the clock */
/* Rows beyond the k-th that a scan of all rows of a source keeps, for those at its distance: with
 * few distances, as Hamming's are, about as many as are nearer. */
#define SEARCH_TIES         4
#define SEARCH_TIES_BITS(k) ((k) + 16)
/* Beyond these: room for hits with ids, so that what is gathered is seldom put in order. */
#define SEARCH_FOUND(k) ((k) / 4 + 64)
#define SEARCH_SCAN_EXACTLY                                                                        \
    128 /* rows not in a graph that are not worth the detour over codes                            \
         */
#define SEARCH_GATHER      ((size_t)2 << 20) /* bytes of what was chosen that is put together */
#define SEARCH_SCAN_LISTED ((size_t)1 << 20) /* bytes of vectors from which codes are faster */

/* Under a predicate, in distances of a walk: what a walk computes for each candidate that it keeps;
 * a scan tests so many rows for one; a walk that has cost so many times what it does without is
 * looked at, and a sample of so many rows then tested. Each is a bet that the costs of both sides
 * limit. */
#define SEARCH_PER_CANDIDATE 12
#define SEARCH_TESTS         8
#define SEARCH_LOOK          2.0
#define SEARCH_SAMPLE        512
#define SEARCH_SHARE                                                                               \
    96 /* of which it is asked at first, for what the near ones are compared with */
#define SEARCH_PROBE       200
#define SEARCH_PROBE_SHARE 12 /* so many times that is spent on the scan that is due else */
/* What a walk computes in the time of one row of those that were put together, by its bytes:
 * measured at 128 and 384. */
#define SEARCH_GATHERED(stride) ((600.0 + 2.0 * (double)(stride)) / (40.0 + (double)(stride)))
#define SEARCH_LISTS            32 /* rows that are listed faster than a candidate's are tested */

/* Stored rows hidden by the transaction that are asked for on top of k. */
#define SEARCH_HIDDEN_FEW 32
/* The transaction's own records: looks at the clock between so many, put in order so many at least
 * at once. */
#define SEARCH_OWN_RUN  4096
#define SEARCH_OWN_SORT 256
/* Searches with a scratch between two notes that the collection is searched. */
#define SEARCH_TELL_EACH 32
/* Hits are put in their places one by one, which is fast where they nearly are there, until they
 * have passed so many others each in the mean; then they are sorted. */

/* One source of rows, whatever it is. */
struct search_source {
    struct graph_view view;          /* the vectors; count = rows that can be scanned */
    struct graph_view walk;          /* of indexed rows, maybe over codes */
    struct graph_view tail;          /* as walk, but for all rows */
    const struct code_format *codes; /* NULL: none */
    int codes_are_exact;
    uint32_t indexed;   /* the first ones, which can be walked */
    uint32_t row_limit; /* rows at or beyond are not visible */
    uint64_t commit;
    int hides;                           /* some rows below row_limit may not be visible */
    const struct search_request *hiding; /* its transaction hides rows; NULL: it is not asked */
    const struct search_predicate *predicate; /* NULL: all match, or `chosen` tells */
    struct matches *matches;                  /* its answers */
    struct scratch_answers *kept;             /* with them, where they are kept; or NULL */
    struct column_filter *plan;               /* its filter; NULL: there is none */
    const uint64_t *chosen;                   /* NULL, or a bit for each row that matches, */
    uint32_t chosen_count;                    /* of which so many do */
    const struct tombstones *tombstones;
    struct overlay *overlay;          /* NULL: all rows have the documents they were written with */
    const struct begin_array *begins; /* NULL: all rows below row_limit have begun */
    struct memtable *memtable;
    struct segment *segment;
};

static int search_source_id(const struct search_source *source, uint32_t row, uint64_t *id)
{
    if (source->segment != NULL)
        return segment_id(source->segment, row, id);
    *id = memtable_id(source->memtable, row);
    return OMENDB_OK;
}

/* The ids of rows from `first`, a multiple of 64, to `last`, at most 64; NULL: they cannot be read.
 */
static const uint8_t *search_source_ids(const struct search_source *source, uint32_t first,
                                        uint32_t last)
{
    if (source->segment == NULL) {
        struct rows_view ids = rows_store_view(&source->memtable->ids);
        return rows_at(&ids, first);
    }
    struct block_file *file = &source->segment->file->file->blocks;
    uint64_t offset = source->segment->ids.offset + first * sizeof(uint64_t);
    return blocks_touch(file, offset, (last - first) * sizeof(uint64_t)) == OMENDB_OK
               ? file->base + offset
               : NULL;
}

/* Whether the transaction changed the record. A row whose id cannot be read counts as unchanged:
 * where it is a hit, naming it fails. */
static int search_is_changed(const struct search_source *source, uint32_t row)
{
    const struct search_request *request = source->hiding;
    uint64_t id;
    return search_source_id(source, row, &id) == OMENDB_OK &&
           txn_find(request->txn, request->collection, id) != NULL;
}

/* Without a branch: 0, which none has, becomes the greatest number. */
static inline int search_has_ended(const struct search_source *source, uint32_t row)
{
    return tombstones_get(source->tombstones, row) - 1 < source->commit;
}

static int search_visible(const void *context, uint32_t row)
{
    const struct search_source *source = context;
    if (search_has_ended(source, row))
        return 0;
    if (source->begins != NULL && source->begins->begin[row] > source->commit)
        return 0;
    return source->hiding == NULL || !search_is_changed(source, row);
}

static int search_id_matches(const struct search_predicate *predicate, uint64_t id)
{
    return predicate->match == NULL || predicate->match(predicate->context, id) != 0;
}

static int search_record_matches(const struct search_predicate *predicate, uint64_t id,
                                 const uint8_t *document)
{
    if (predicate == NULL)
        return 1;
    if (predicate->filter != NULL && !filter_matches(predicate->filter, id, document))
        return 0;
    return search_id_matches(predicate, id);
}

/* Of a segment's row whose document is not that of the columns. *known = 0: it is. */
static int search_overlaid_matches(const struct search_source *source, uint32_t row, int *known)
{
    struct overlay_version found;
    uint64_t id = 0;
    int code = overlay_find(source->overlay, row, source->commit, &found);
    *known = code != OMENDB_OK || found.commit != 0;
    if (code == OMENDB_OK && *known)
        code = segment_id(source->segment, row, &id);
    if (code == OMENDB_OK)
        return *known && filter_matches(source->predicate->filter, id, found.document);
    if (source->plan->code == OMENDB_OK)
        source->plan->code = code;
    return 1;
}

static int search_filter_matches(const struct search_source *source, uint32_t row)
{
    int known = 0, matches = 0;
    if (source->segment != NULL) {
        if (overlay_may_have(source->overlay, row))
            matches = search_overlaid_matches(source, row, &known);
        return known ? matches : column_filter_matches(source->plan, row);
    }
    const uint8_t *document;
    (void)memtable_document_at(source->memtable, source->overlay, row, source->commit, &document);
    return filter_matches(source->predicate->filter, memtable_id(source->memtable, row), document);
}

/* Whether the predicate lets the row through. One that cannot be read counts as a match: where its
 * id cannot be, naming it fails; where its document cannot be, the plan says so in the end. */
static int search_row_matches(const struct search_source *source, uint32_t row)
{
    const struct search_predicate *predicate = source->predicate;
    uint64_t id;
    if (predicate->filter != NULL && !search_filter_matches(source, row))
        return 0;
    return predicate->match == NULL || search_source_id(source, row, &id) != OMENDB_OK ||
           search_id_matches(predicate, id);
}

static int search_matches(const struct search_source *source, uint32_t row)
{
    const uint64_t bit = UINT64_C(1) << (row % 64);
    if (source->predicate == NULL)
        return 1;
    if (matches_knows(source->matches, row))
        return matches_has(source->matches, row);
    int answer = search_row_matches(source, row);
    matches_note(source->matches, row / 64, bit, answer ? bit : 0);
    return answer;
}

static void search_prefetch(const void *context, uint32_t row)
{
    const struct search_source *source = context;
    if (source->segment != NULL)
        prefetch_line(source->segment->file->file->blocks.base + source->segment->ids.offset +
                      row * sizeof(uint64_t));
}

static int search_visible_match(const void *context, uint32_t row)
{
    return search_visible(context, row) && search_matches(context, row);
}

/* A bit for each visible row of [first, last), all of one word. */
static uint64_t search_visible_word(const struct search_source *source, uint32_t first,
                                    uint32_t last)
{
    uint64_t visible = 0;
    if (!source->hides)
        return (UINT64_MAX >> (64 - (last - first))) << (first % 64);
    for (uint32_t row = first; row < last; row++)
        visible |= (uint64_t)!search_has_ended(source, row) << (row % 64);
    if (source->begins == NULL && source->hiding == NULL)
        return visible;
    for (uint64_t left = visible; left != 0; left &= left - 1) {
        const uint32_t bit = graph_lowest_bit(left);
        if (!search_visible(source, first / 64 * 64 + bit))
            visible &= ~(UINT64_C(1) << bit);
    }
    return visible;
}

/* search_matches of rows [first, last) of one word, as far as they are visible. */
static void search_match_word(const struct search_source *source, uint32_t first, uint32_t last)
{
    const uint32_t word = first / 64;
    const uint8_t *ids = search_source_ids(source, word * 64, last);
    uint64_t left = search_visible_word(source, first, last) & ~source->matches->asked[word];
    uint64_t asked = left, chosen = 0, id;
    for (; left != 0; left &= left - 1) {
        const uint32_t bit = graph_lowest_bit(left);
        if (source->predicate->filter != NULL) {
            chosen |= (uint64_t)search_row_matches(source, word * 64 + bit) << bit;
            continue;
        }
        if (ids != NULL)
            memcpy(&id, ids + bit * sizeof id, sizeof id);
        if (ids == NULL || search_id_matches(source->predicate, id))
            chosen |= UINT64_C(1) << bit;
    }
    matches_note(source->matches, word, asked, chosen);
}

/* Asks the predicate, if there is one, of rows [first, last). */
static void search_match_rows(const struct search_source *source, uint32_t first, uint32_t last)
{
    while (source->predicate != NULL && first < last) {
        uint32_t end = last - first > 64 - first % 64 ? first + (64 - first % 64) : last;
        search_match_word(source, first, end);
        first = end;
    }
}

static void search_memtable_source(const struct search_request *request, uint32_t index,
                                   struct search_source *source)
{
    struct memtable *memtable = request->version->memtables[index];
    const struct collection *collection = request->collection;
    const uint64_t commit = request->commit;
    memset(source, 0, sizeof *source);
    /* In this order: what is indexed is in the view, what is visible is in it, too. */
    source->indexed = memtable_graph_rows(memtable);
    source->row_limit = memtable_visible_rows(memtable, commit);
    graph_get_view(memtable->graph, &source->view);
    source->walk = source->view;
    if (memtable->codes.step != 0.0f) {
        source->codes = &memtable->codes;
        source->codes_are_exact =
            codes_are_exact(&memtable->codes) && atomic_load(&memtable->inexact) == 0;
        source->view.vectors = memtable_vectors(memtable);
        source->view.kernel = collection->kernel;
    }
    if (memtable->graphless) {
        source->view.vectors = memtable_vectors(memtable);
        source->view.count = source->row_limit;
    }
    source->tail = source->walk;
    source->commit = commit;
    source->tombstones = memtable->tombstones;
    source->overlay = request->version->memtable_overlays[index];
    source->memtable = memtable;
}

static void search_segment_source(const struct search_request *request, uint32_t index,
                                  struct search_source *source)
{
    struct segment *segment = request->version->segments[index];
    const uint64_t commit = request->commit;
    memset(source, 0, sizeof *source);
    source->view = segment->full;
    source->walk = *hot_view(segment);
    source->tail = segment->graph;
    source->tail.count = segment->info.rows;
    source->codes = segment->codes.step == 0.0f ? NULL : &segment->codes;
    source->codes_are_exact =
        (segment->info.flags & SEGMENT_CODES_EXACT) != 0 && codes_are_exact(&segment->codes);
    source->indexed = segment->info.indexed_rows;
    source->row_limit = segment->info.rows;
    source->commit = commit;
    source->tombstones = segment->tombstones;
    source->overlay = request->version->segment_overlays[index];
    source->begins =
        segment->begins != NULL && segment->begins->newest > commit ? segment->begins : NULL;
    source->segment = segment;
}

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

OMENDB_INTERNAL int search_check_deadline(const struct search_request *request)
{
    const omendb_vfs *vfs = request->collection->db->storage.vfs;
    if (request->deadline_us == 0 || vfs->now_us(vfs->context) < request->deadline_us)
        return OMENDB_OK;
    return error_set(OMENDB_TIMEOUT, "the search took longer than query.timeout_us");
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

/* Whether so many rows of a batch's answers are put together: they are few, and all in the graph.
 */
static int search_gathers(const struct search_source *source, uint32_t rows, size_t stride)
{
    return source->kept != NULL && source->segment != NULL &&
           source->indexed >= source->row_limit && rows != 0 && rows <= SEARCH_GATHER / stride;
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

static size_t search_ties(const struct search_request *request, size_t k)
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

/* ------------------------------------------------------------------ effort */

OMENDB_INTERNAL uint64_t search_total_rows(const struct version *version, uint64_t *largest)
{
    uint64_t rows = 0;
    *largest = 0;
    for (uint32_t i = 0; i < version->memtable_count + version->segment_count; i++) {
        uint64_t more =
            i < version->memtable_count
                ? atomic_load_explicit(&version->memtables[i]->count, memory_order_acquire)
                : version->segments[i - version->memtable_count]->info.rows;
        rows += more;
        *largest = more > *largest ? more : *largest;
    }
    return rows;
}

static const struct calibration *search_curve(const struct search_plan *plan,
                                              const struct segment *segment)
{
    return plan->own != NULL ? plan->own : segment == NULL ? NULL : segment->calibration;
}

OMENDB_INTERNAL const struct calibration *search_own_curve(const struct collection *collection,
                                                           const struct version *version)
{
    const struct calibration *own =
        atomic_load_explicit(&collection->calibration, memory_order_acquire);
    uint64_t largest;
    if (own == NULL || own->count == 0 || search_total_rows(version, &largest) / 2 > own->all_rows)
        return NULL;
    for (uint32_t i = 0; i < version->segment_count; i++) {
        if (version->segments[i]->info.indexed_rows / 2 > own->rows)
            return NULL;
    }
    return own;
}

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

/* What ef becomes in a source: of the nearest the part of them is to be expected in it that it has
 * of the rows. With the root of that part all sources together find about what one graph of all
 * rows would with ef. */
static size_t search_share_of_ef(const struct search_request *request,
                                 const struct search_source *source, size_t k)
{
    size_t ef = request->ef < k ? k : request->ef;
    if (request->stretch == 0.0f && source->row_limit < request->visible_rows)
        ef = k + (size_t)((double)(ef - k) *
                          sqrt((double)source->row_limit / (double)request->visible_rows));
    return ef;
}

static size_t search_excluded_count(const struct search_request *request)
{
    return request->excluded_count + (request->excluded_id != OMENDB_ID_AUTO);
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

/* The k to look up in a curve where `k` hits are walked for: records that the query is compared
 * with, and that are left out, are found by any effort. */
static size_t search_curve_k(const struct search_request *request, size_t k)
{
    return k - search_excluded_count(request);
}

/* What an ef or a stretch costs as far as the curve tells: as much as the best effort of the same
 * recall, and of a stretch the ef alone that finds as much. */
static void search_cost(const struct calibration *curve, size_t k,
                        struct calibration_answer *answer)
{
    struct calibration_answer same;
    if (answer->stretch > 0.0f && answer->work > SEARCH_STRETCH_EF)
        answer->work = SEARCH_STRETCH_EF;
    if (answer->recall == 0.0f)
        return;
    calibration_find_effort(curve, k, answer->recall, &same);
    answer->cost = same.cost;
    if (answer->stretch > 0.0f)
        answer->work = same.work;
}

/* The effort for one source, whatever was asked, and what it promises: recall 0 where no curve
 * tells. With a stretch ef is only a cap, far above what is kept. */
static void search_effort(const struct search_request *request, const struct search_plan *plan,
                          const struct search_source *source, size_t k,
                          struct calibration_answer *answer)
{
    const struct calibration *curve = search_curve(plan, source->segment);
    size_t ef = search_share_of_ef(request, source, k);
    if (request->recall > 0.0f) {
        *answer = plan->most;
        answer->recall = 0.0f;
        if (curve != NULL)
            calibration_find_effort(curve, search_curve_k(request, k), request->recall, answer);
    } else {
        *answer =
            (struct calibration_answer){.k = k, .ef = ef, .stretch = request->stretch, .work = ef};
        if (curve != NULL)
            calibration_find_recall(curve, search_curve_k(request, k), ef, request->stretch,
                                    answer);
        search_cost(curve, search_curve_k(request, k), answer);
    }
    if (plan->own != NULL && request->version->segment_count > 1) /* whose walks it counts */
        answer->cost /= (float)request->version->segment_count;
    if (answer->recall == 0.0f)
        answer->warnings |= OMENDB_EXPLAIN_UNCALIBRATED;
    answer->k = answer->k < k ? k : answer->k;
    answer->ef = answer->ef < k ? k : answer->ef;
    answer->work = answer->work < k ? k : answer->work;
    if (answer->cost == 0.0f)
        answer->cost = SEARCH_PER_CANDIDATE * (float)answer->work;
    answer->ef = answer->ef < source->row_limit ? answer->ef : source->row_limit;
}

static void search_plan_for(const struct search_request *request, const struct calibration *curve,
                            size_t k, struct search_plan *plan)
{
    struct calibration_answer answer;
    if (curve == NULL)
        return;
    calibration_find_effort(curve, search_curve_k(request, k), request->recall, &answer);
    plan->ef = answer.ef > plan->ef ? answer.ef : plan->ef;
    if (answer.work > plan->most.work)
        plan->most = answer;
}

OMENDB_INTERNAL void search_make_plan(const struct search_request *request, size_t k,
                                      struct search_plan *plan)
{
    const struct version *version = request->version;
    *plan = (struct search_plan){.own = search_own_curve(request->collection, version)};
    if (request->recall > 0.0f && plan->own != NULL)
        search_plan_for(request, plan->own, k, plan);
    for (uint32_t i = 0; request->recall > 0.0f && plan->own == NULL && i < version->segment_count;
         i++)
        search_plan_for(request, version->segments[i]->calibration, k, plan);
    if (plan->most.work == 0) {
        size_t guess = request->recall > 0.0f ? calibration_guess_ef(k, request->recall) : 0;
        size_t ef = guess > request->ef ? guess : request->ef;
        plan->most = (struct calibration_answer){.k = k, .ef = ef, .work = ef};
    }
    plan->most.warnings = OMENDB_EXPLAIN_UNCALIBRATED;
    plan->ef = plan->ef > plan->most.ef ? plan->ef : plan->most.ef;
    plan->ef = plan->ef > k ? plan->ef : k;
}

/* The hits are those of a walk. */
static void search_tell(const struct calibration_answer *answer, omendb_explain *explain)
{
    explain->warnings |= answer->warnings;
    if ((answer->warnings & OMENDB_EXPLAIN_UNCALIBRATED) == 0 && answer->recall < explain->recall)
        explain->recall = answer->recall;
}

/* Whether a walk is not worth it. Where the transaction hides most rows, a walk meets many for each
 * that it may return. */
static int search_is_small(const struct search_request *request, uint32_t rows, size_t work)
{
    return (double)(rows / SEARCH_SCAN_PER_CANDIDATE) * (1.0 - request->hidden_share) <=
           (double)work;
}

static struct graph_filter search_filter(const struct search_source *source)
{
    return (struct graph_filter){.row_limit = source->row_limit,
                                 .excluded_row = GRAPH_NO_ROW,
                                 .visible = source->predicate != NULL ? search_visible_match
                                            : source->hides           ? search_visible
                                                                      : NULL,
                                 .context = source,
                                 .prefetch = source->predicate != NULL ? search_prefetch : NULL,
                                 .chosen = source->chosen};
}

/* For rows of which search_match_rows has asked. */
static struct graph_filter search_scan_filter(const struct search_source *source)
{
    struct graph_filter filter = search_filter(source);
    if (source->predicate != NULL) {
        filter.visible = NULL;
        filter.chosen = source->matches->chosen;
    }
    return filter;
}

/* ------------------------------------------------------------------ predicates */

/* A walk under a predicate. */
struct search_look {
    const struct search_source *source;
    uint32_t rows; /* that it may return, or hide */
    size_t k;
    size_t work; /* candidates that it would keep without */
    double cost; /* distances that it would compute without */
    int probes;  /* comparing all that match is less, unless many of them are near the query */
    uint64_t at; /* distances after which it is looked at first */
    int looked;
    double share; /* of the rows, those that match */
};

/* Rows spread over the source, which no order of ids is in step with. */
static double search_sample(const struct search_source *source, uint32_t rows, uint32_t most)
{
    const uint32_t count = rows < most ? rows : most;
    const struct graph_held spread = {0, rows / count, count};
    uint32_t matching = 0;
    for (uint32_t i = 0; i < count; i++)
        matching += (uint32_t)search_visible_match(source, graph_held_row(&spread, i));
    return (double)matching / count;
}

/* At most so many rows match: those of which the columns tell, and those that were updated, of
 * which they do not; UINT32_MAX: not known. */
static uint32_t search_most(const struct search_source *source)
{
    const uint32_t most = source->plan == NULL ? UINT32_MAX : column_filter_most(source->plan),
                   updated = overlay_count(source->overlay);
    return most < UINT32_MAX - updated ? most + updated : UINT32_MAX;
}

/* Whether a scan goes through what the columns list, rather than test all rows. */
static int search_lists_part(const struct search_source *source)
{
    return source->predicate != NULL && search_most(source) < source->row_limit / 2;
}

/* What comparing so many rows costs, in distances of a walk. */
static double search_compared(const struct search_source *source, uint32_t rows)
{
    const size_t stride = (source->codes != NULL ? &source->walk : &source->view)->vectors.stride;
    return search_gathers(source, rows, stride) ? rows / SEARCH_GATHERED(stride) : rows;
}

/* What comparing all that match costs: those that are known, or that the columns will list, which
 * costs half as much again; else all are tested first. */
static double search_scan_cost(const struct search_look *look)
{
    const double tested = look->rows * (look->share + 1.0 / SEARCH_TESTS);
    const uint32_t most = search_most(look->source);
    if (look->source->chosen != NULL)
        return search_compared(look->source, look->source->chosen_count);
    return search_lists_part(look->source) && 1.5 * most < tested ? 1.5 * most : tested;
}

/* As graph_effort.look. Where far fewer match near the query than elsewhere, what the sample
 * promises is doubtful, and the walk gets less. */
static uint64_t search_look(void *context, const struct graph_progress *progress)
{
    struct search_look *look = context;
    if (look->looked)
        return 0;
    look->looked = 1;
    if (look->source->chosen == NULL)
        look->share = search_sample(look->source, look->rows, SEARCH_SAMPLE);
    double cost = search_scan_cost(look);
    double near = progress->asked == 0 ? 0.0 : (double)progress->passed / (double)progress->asked;
    double best = near > look->share ? near : look->share;
    double kept = (double)look->k + (double)(look->work - look->k) * sqrt(best);
    if (look->probes)
        cost /= 2.0;
    if (look->cost * kept / (double)look->work >= best * cost)
        return 0;
    return (uint64_t)(near < look->share / 4.0 ? cost / 4.0 : cost);
}

/* Whether comparing so many rows costs less than a walk that is to find them among all, of `cost`
 * distances without a predicate: of a share s it computes about 1 / sqrt(s) as many (200,000 and a
 * million of SIFT, s from 0.01 to 1, where no kind of row is nearer to the query than others), and
 * takes half as long again for each, unless the answers for others of a batch are there. */
static int search_beats_walk(const struct search_source *source, uint32_t matching, double cost)
{
    const double each = source->kept != NULL ? 1.0 : 1.5;
    return search_compared(source, matching) * sqrt(matching) <=
           each * cost * sqrt(source->row_limit);
}

/* After how many distances a walk is looked at; 0: it is not worth beginning. Where comparing all
 * that match takes long, a walk is tried first: they may be about the query. */
static uint64_t search_first_look(struct search_look *look)
{
    const struct search_source *source = look->source;
    uint64_t first = (uint64_t)(SEARCH_LOOK * look->cost);
    double cost = search_scan_cost(look);
    if (source->chosen != NULL && search_beats_walk(source, source->chosen_count, look->cost)) {
        look->probes = 1;
        return cost / SEARCH_PROBE_SHARE < SEARCH_PROBE ? 0 : SEARCH_PROBE;
    }
    return cost < (double)first ? (uint64_t)cost + 1 : first;
}

/* The filter as it is for the rows of the source. */
static int search_make_plan_of_filter(struct search_source *source, struct memory *memory,
                                      struct column_filter *plan)
{
    const omendb_filter *filter = source->predicate->filter;
    source->plan = plan;
    return source->segment != NULL ? column_filter_make(plan, memory, filter, source->segment)
                                   : column_filter_make_memtable(
                                         plan, memory, filter, source->memtable, source->row_limit);
}

/* Of 64 rows those that are to be asked even where lists are exact. Of a memtable none is: only ids
 * and keys are listed, which no update changes. */
static uint64_t search_updated_word(const struct search_source *source, uint32_t word)
{
    return source->segment != NULL ? overlay_word(source->overlay, word) : 0;
}

/* A bit for each row that may match, where search_most knows how many. *exact: 1: all of them match
 * but those of search_updated_word. */
static int search_list(const struct search_source *source, uint64_t **bits, int *exact)
{
    const uint32_t rows = source->row_limit;
    int code = column_filter_list(source->plan, rows, bits, exact);
    for (uint32_t word = 0;
         overlay_count(source->overlay) != 0 && word <= rows / 64 && code == OMENDB_OK; word++)
        (*bits)[word] |= search_updated_word(source, word);
    return code;
}

/* Whether the rows that the columns list are few enough to be asked before anything else: where
 * comparing them is all that is done then; or, where none is to be asked, where that costs less
 * than to test those that a walk meets, for all the queries that share what is listed. */
static int search_lists_few(const struct search_source *source,
                            const struct calibration_answer *answer, uint64_t queries)
{
    const uint32_t most = search_most(source);
    if (most == UINT32_MAX)
        return 0;
    if (search_beats_walk(source, most, (double)answer->cost))
        return 1;
    return source->predicate->match == NULL &&
           (most / SEARCH_LISTS <= answer->work * queries ||
            search_beats_walk(source, most, 2.0 * (double)answer->cost)) &&
           column_filter_lists_exactly(source->plan, source->row_limit);
}

/* All that match are known: nothing is left to ask. */
static void search_know_matches(struct search_source *source)
{
    source->matches->complete = 1;
    source->chosen = source->matches->chosen;
    source->chosen_count = (uint32_t)source->matches->chosen_rows;
    source->predicate = NULL;
}

/* Asks of the visible rows that are listed; of all others the columns tell that they do not match.
 * From then on those that match are known. */
static int search_choose_listed(const struct search_request *request, struct search_source *source)
{
    const uint32_t rows = source->row_limit;
    uint64_t *bits;
    int exact, code = search_list(source, &bits, &exact);
    exact &= source->predicate->match == NULL;
    for (uint32_t word = 0; word * UINT64_C(64) < rows && code == OMENDB_OK; word++) {
        const uint32_t first = word * 64, last = rows - first < 64 ? rows : first + 64;
        if (word % (SEARCH_SCAN_RUN / 64) == 0)
            code = search_check_deadline(request);
        if (bits[word] == 0)
            continue;
        const uint64_t visible = search_visible_word(source, first, last);
        const uint64_t asked = bits[word] & visible & ~source->matches->asked[word];
        uint64_t chosen = exact ? asked & ~search_updated_word(source, word) : 0;
        for (uint64_t left = asked & ~chosen; left != 0; left &= left - 1) {
            const uint32_t bit = graph_lowest_bit(left);
            chosen |= (uint64_t)search_row_matches(source, word * 64 + bit) << bit;
        }
        if (asked != 0)
            matches_note(source->matches, word, asked, chosen);
    }
    if (code == OMENDB_OK)
        search_know_matches(source);
    return code;
}

/* What it is a source of. */
static const void *search_origin(const struct search_source *source)
{
    return source->segment != NULL ? (const void *)source->segment : source->memtable;
}

static int search_begin_predicate(const struct search_request *request, struct scratch *scratch,
                                  const struct calibration_answer *answer,
                                  struct search_source *source)
{
    const struct search_predicate *predicate = request->predicate;
    const int keeps = request->others != 0 && source->row_limit == request->largest;
    struct scratch_answers *answers = keeps ? &scratch->kept : &scratch->answers;
    int code = OMENDB_OK;
    if (predicate == NULL)
        return OMENDB_OK;
    source->predicate = predicate;
    source->matches = &answers->matches;
    source->kept = keeps ? answers : NULL;
    source->plan = predicate->filter != NULL ? &answers->plan : NULL;
    if (!matches_continue(source->matches, request->batch, search_origin(source),
                          source->row_limit)) {
        code = matches_begin(source->matches, source->row_limit);
        answers->gathered.count = 0;
        if (code == OMENDB_OK && source->plan != NULL)
            code = search_make_plan_of_filter(source, scratch->memory, source->plan);
        if (code == OMENDB_OK && keeps)
            matches_belong(source->matches, request->batch, search_origin(source),
                           source->row_limit);
    }
    if (code == OMENDB_OK && source->matches->complete)
        search_know_matches(source);
    else if (code == OMENDB_OK && search_lists_few(source, answer, request->others + 1))
        code = search_choose_listed(request, source);
    return code;
}

/* Its rows but for those that have ended, at whatever commit; 1 at least. */
static double search_living(const struct search_source *source)
{
    const uint32_t dead = atomic_load_explicit(&source->tombstones->dead, memory_order_acquire);
    const uint32_t rows = source->row_limit > dead ? source->row_limit - dead : 1;
    return rows > source->chosen_count ? rows : source->chosen_count;
}

/* What the source adds to the shares of all. */
static void search_tell_matches(const struct search_request *request,
                                const struct search_source *source, const struct search_look *look,
                                int scanned, omendb_explain *explain)
{
    double share = 1.0;
    if (source->chosen != NULL) {
        explain->matches_tested += source->matches->asked_rows;
        share = (double)source->chosen_count / search_living(source);
    } else if (source->predicate != NULL) {
        const struct matches *matches = source->matches;
        explain->matches_tested += matches->asked_rows;
        share = look->looked && !scanned ? look->share
                : matches->asked_rows == 0
                    ? 0.0
                    : (double)matches->chosen_rows / (double)matches->asked_rows;
    }
    explain->selectivity += (float)(share * source->row_limit / (double)request->visible_rows);
}

/* Of all rows those that match, as so many of them tell; 0: all. */
static double search_share(const struct search_source *source, const struct search_look *look,
                           uint32_t *sample)
{
    const struct search_predicate *predicate = source->predicate;
    *sample = 0;
    if (source->chosen != NULL)
        return look->share;
    if (predicate->match == NULL && predicate->filter->leaf_count == 1 && source->plan != NULL &&
        column_filter_most(source->plan) != UINT32_MAX)
        return (double)column_filter_most(source->plan) / (double)source->row_limit;
    *sample = SEARCH_SHARE;
    return search_sample(source, look->rows, SEARCH_SHARE);
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

/* The k nearest rows of a source into scratch->hits; with search_ties more where all were compared.
 */
static int search_rows(const struct search_request *request, struct search_source *source,
                       struct scratch *scratch, size_t k, const struct calibration_answer *answer,
                       size_t *count, struct graph_counters *counters, omendb_explain *explain)
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

/* Who gets what matches. */
struct search_receiver {
    int (*each)(void *context, const struct location *location, const struct txn_write *own);
    void *context;
};

static int search_hand_out(const struct search_source *source, uint32_t row,
                           const struct search_receiver *receiver)
{
    const struct location location = {source->memtable, source->segment, source->overlay, row};
    if (!search_visible(source, row) ||
        (source->predicate != NULL && !search_row_matches(source, row)))
        return OMENDB_OK;
    return receiver->each(receiver->context, &location, NULL);
}

/* The rows that are listed, or all. */
static int search_each_row(struct search_source *source, const struct search_receiver *receiver)
{
    uint64_t *bits = NULL;
    int exact = 0, code = OMENDB_OK;
    if (search_most(source) < source->row_limit)
        code = search_list(source, &bits, &exact);
    if (exact && source->predicate->match == NULL && overlay_count(source->overlay) == 0)
        source->predicate = NULL; /* nothing is left to ask */
    for (uint32_t word = 0; word <= source->row_limit / 64 && code == OMENDB_OK; word++) {
        uint64_t left = bits == NULL ? UINT64_MAX : bits[word];
        for (; left != 0 && code == OMENDB_OK; left &= left - 1) {
            const uint32_t row = word * 64 + graph_lowest_bit(left);
            if (row < source->row_limit)
                code = search_hand_out(source, row, receiver);
        }
    }
    return code == OMENDB_OK && source->plan != NULL ? source->plan->code : code;
}

/* Memtable or segment number `index`, of which search_each_row is to hand out what matches. */
static int search_begin_each(const struct search_request *request, uint32_t index,
                             struct scratch *scratch, struct search_source *source)
{
    const uint32_t memtables = request->version->memtable_count;
    if (index < memtables)
        search_memtable_source(request, index, source);
    else
        search_segment_source(request, index - memtables, source);
    source->hiding = request->txn != NULL ? request : NULL;
    source->predicate = request->predicate;
    return request->predicate != NULL && request->predicate->filter != NULL
               ? search_make_plan_of_filter(source, scratch->memory, &scratch->answers.plan)
               : OMENDB_OK;
}

OMENDB_INTERNAL int search_each_of_few(const struct search_request *request, uint32_t index,
                                       uint32_t most,
                                       int (*each)(void *context, const struct location *location,
                                                   const struct txn_write *own),
                                       void *context, int *few)
{
    const struct search_receiver receiver = {each, context};
    struct scratch *scratch = scratch_take(request->collection->db);
    struct search_source source;
    *few = 0;
    if (scratch == NULL)
        return OMENDB_NOMEM;
    int code = search_begin_each(request, index, scratch, &source);
    *few = code == OMENDB_OK && search_most(&source) <= most;
    if (*few)
        code = search_each_row(&source, &receiver);
    scratch_give(request->collection->db, scratch);
    return code;
}

OMENDB_INTERNAL int search_each_location(const struct search_request *request,
                                         int (*each)(void *context, const struct location *location,
                                                     const struct txn_write *own),
                                         void *context)
{
    const struct version *version = request->version;
    const struct search_receiver receiver = {each, context};
    struct scratch *scratch = scratch_take(request->collection->db);
    struct search_source source;
    int code = scratch == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (uint32_t i = 0; i < version->memtable_count + version->segment_count && code == OMENDB_OK;
         i++) {
        code = search_begin_each(request, i, scratch, &source);
        if (code == OMENDB_OK)
            code = search_each_row(&source, &receiver);
    }
    for (size_t i = 0; request->txn != NULL && i < request->txn->write_count && code == OMENDB_OK;
         i++) {
        const struct txn_write *write = &request->txn->writes[i];
        const struct location none = {NULL, NULL, NULL, 0};
        if (write->collection == request->collection && write->vector != NULL &&
            search_record_matches(request->predicate, write->id, write->document))
            code = each(context, &none, write);
    }
    scratch_give(request->collection->db, scratch);
    return code;
}

/* Who gets the ids of what matches. */
struct search_id_receiver {
    int (*each)(void *context, uint64_t id);
    void *context;
};

static int search_tell_id(void *context, const struct location *location,
                          const struct txn_write *own)
{
    const struct search_id_receiver *receiver = context;
    uint64_t id = own != NULL ? own->id : 0;
    int code = own != NULL ? OMENDB_OK : location_id(location, &id);
    return code == OMENDB_OK ? receiver->each(receiver->context, id) : code;
}

OMENDB_INTERNAL int search_each_match(const struct search_request *request,
                                      int (*each)(void *context, uint64_t id), void *context)
{
    struct search_id_receiver receiver = {each, context};
    return search_each_location(request, search_tell_id, &receiver);
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

#undef SEARCH_SCAN_PER_CANDIDATE
#undef SEARCH_STRETCH_EF
#undef SEARCH_RERANK
#undef SEARCH_RERANK_RUN
#undef SEARCH_SCAN_RUN
#undef SEARCH_TIES
#undef SEARCH_TIES_BITS
#undef SEARCH_FOUND
#undef SEARCH_SCAN_EXACTLY
#undef SEARCH_GATHER
#undef SEARCH_GATHERED
#undef SEARCH_SCAN_LISTED
#undef SEARCH_PER_CANDIDATE
#undef SEARCH_TESTS
#undef SEARCH_LOOK
#undef SEARCH_SAMPLE
#undef SEARCH_SHARE
#undef SEARCH_PROBE
#undef SEARCH_PROBE_SHARE
#undef SEARCH_LISTS
#undef SEARCH_HIDDEN_FEW
#undef SEARCH_OWN_RUN
#undef SEARCH_OWN_SORT
#undef SEARCH_TELL_EACH
