/* search_plan.c: what a search of one source costs, and so whether its rows are walked or scanned.
 *
 * Without a predicate the effort of a walk is what was asked, or what the measured curves give for
 * the recall that was asked; and where a scan costs no more than that, there is no walk.
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
 * rows that it met match: they are about the query, and the walk is short. */
#include "search_internal.h"

#include <math.h>

/* A walk computes some 10 to 20 distances for each candidate it keeps, at random places; a scan of
 * 8 for each is cheaper. */
#define SEARCH_SCAN_PER_CANDIDATE 8
/* What a walk by stretch costs, whatever its cap, where no curve tells. */
#define SEARCH_STRETCH_EF 128

/* Under a predicate, in distances of a walk: what a walk computes for each candidate that it keeps;
 * a scan tests so many rows for one; a walk that has cost so many times what it does without is
 * looked at, and a sample of so many rows then tested. Each is a bet that the costs of both sides
 * limit. */
#define SEARCH_PER_CANDIDATE 12
#define SEARCH_TESTS         8
#define SEARCH_LOOK          2.0
#define SEARCH_SAMPLE        512
#define SEARCH_SHARE         96 /* tested at first, for what the near ones are compared with */
#define SEARCH_PROBE         200
#define SEARCH_PROBE_SHARE   12 /* so many times that is spent on the scan that is due else */
#define SEARCH_GATHER        ((size_t)2 << 20) /* bytes of what was chosen that is put together */
/* What a walk computes in the time of one row of those that were put together, by its bytes:
 * measured at 128 and 384. */
#define SEARCH_GATHERED(stride) ((600.0 + 2.0 * (double)(stride)) / (40.0 + (double)(stride)))
#define SEARCH_LISTS            32 /* rows that are listed faster than a candidate's are tested */

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

OMENDB_INTERNAL size_t search_excluded_count(const struct search_request *request)
{
    return request->excluded_count + (request->excluded_id != OMENDB_ID_AUTO);
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

OMENDB_INTERNAL void search_effort(const struct search_request *request,
                                   const struct search_plan *plan,
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

OMENDB_INTERNAL int search_is_small(const struct search_request *request, uint32_t rows,
                                    size_t work)
{
    return (double)(rows / SEARCH_SCAN_PER_CANDIDATE) * (1.0 - request->hidden_share) <=
           (double)work;
}

/* ------------------------------------------------------------------ predicates */

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

OMENDB_INTERNAL int search_lists_part(const struct search_source *source)
{
    return source->predicate != NULL && search_most(source) < source->row_limit / 2;
}

OMENDB_INTERNAL int search_gathers(const struct search_source *source, uint32_t rows, size_t stride)
{
    return source->kept != NULL && source->segment != NULL &&
           source->indexed >= source->row_limit && rows != 0 && rows <= SEARCH_GATHER / stride;
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

OMENDB_INTERNAL uint64_t search_look(void *context, const struct graph_progress *progress)
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

OMENDB_INTERNAL uint64_t search_first_look(struct search_look *look)
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

/* What it is a source of. */
static const void *search_origin(const struct search_source *source)
{
    return source->segment != NULL ? (const void *)source->segment : source->memtable;
}

OMENDB_INTERNAL int search_begin_predicate(const struct search_request *request,
                                           struct scratch *scratch,
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

OMENDB_INTERNAL double search_share(const struct search_source *source,
                                    const struct search_look *look, uint32_t *sample)
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

/* Its rows but for those that have ended, at whatever commit; 1 at least. */
static double search_living(const struct search_source *source)
{
    const uint32_t dead = atomic_load_explicit(&source->tombstones->dead, memory_order_acquire);
    const uint32_t rows = source->row_limit > dead ? source->row_limit - dead : 1;
    return rows > source->chosen_count ? rows : source->chosen_count;
}

OMENDB_INTERNAL void search_tell_matches(const struct search_request *request,
                                         const struct search_source *source,
                                         const struct search_look *look, int scanned,
                                         omendb_explain *explain)
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

#undef SEARCH_SCAN_PER_CANDIDATE
#undef SEARCH_STRETCH_EF
#undef SEARCH_PER_CANDIDATE
#undef SEARCH_TESTS
#undef SEARCH_LOOK
#undef SEARCH_SAMPLE
#undef SEARCH_SHARE
#undef SEARCH_PROBE
#undef SEARCH_PROBE_SHARE
#undef SEARCH_GATHER
#undef SEARCH_GATHERED
#undef SEARCH_LISTS
