/* calibration.c: curves of recall by effort: made from samples, asked, stored. calibrate.c
 * measures.
 *
 * The bound. The recalls of n queries have a mean m and a variance v; the mean over all queries
 * like them is above m - 1.645 * sqrt(v / n) with a probability of 95 %. A sample in which
 * everything was found has a variance of 0, which would promise too much: one more missed neighbour
 * is added to it. Bounds are then made to ascend with the effort, as recall does, and so are costs.
 *
 * Between two entries the effort is taken on a straight line in log(ef), or in the stretch. Recall
 * is concave there, so that the line lies below the curve, and what is promised is kept. The cost
 * is taken on one in its logarithm.
 *
 * A recall is given by a stretch or by an ef, whichever cost fewer distances. Mostly that is a
 * stretch, with which easy queries end early: a tenth less at a recall of 0.95 and a quarter at
 * 0.995, on 400,000 vectors of SIFT. Near what the cap finds it may be an ef, as a stretch that
 * misses as little lets most queries go as far as the cap. The rungs by ef also tell what a search
 * by ef finds and how long a walk is at most. A stretch counts from the k-th hit, and for fewer
 * than the smallest measured k would have to be greater: such a walk is one for that k. Rejected: a
 * stretch beyond the largest k, where its cap would have to grow with k to sizes that no walk was
 * measured with.
 *
 * A recall above the last entry's bound gets the last entry's effort, which is the most that was
 * measured, and a warning. Extrapolation was rejected: a curve's end is where some queries are out
 * of a walk's reach, and no effort can be named for them. Where there is no curve at all, an ef is
 * guessed, and nothing is promised.
 *
 * Nothing read from a file is trusted: a curve that is not one is none. */
#include "calibration.h"

#include "format.h"

#include <math.h>
#include <string.h>

#define CALIBRATION_NORMAL 1.645 /* one-sided 95 % of the normal distribution */
#define CALIBRATION_ENOUGH 0.999f
#define CALIBRATION_HARDLY 0.0004f /* more is not worth another rung */
#define CALIBRATION_DEAR   0.75f   /* of what the cap costs: a greater stretch saves little */
#define CALIBRATION_STEP   0.02f   /* the first one of stretch */
#define CALIBRATION_LEAST  0.0001  /* missed share: no guess is for less */

/* ------------------------------------------------------------------ making */

/* The rungs of one k: those by an ef alone, then `stretches` of them with the last ef as their cap.
 * Where there are none, steps are of about one and a half: a straight line between two is below the
 * curve by less than the sample's own doubt. */
struct calibration_ladder {
    uint32_t k, stretches;
    uint32_t ef[13]; /* ends with 0 */
};
static const struct calibration_ladder calibration_ladders[2][2] = {
    {{10, 0, {10, 15, 22, 33, 50, 75, 110, 165, 250, 375, 560, 850}},
     {100, 0, {100, 140, 200, 280, 400, 600, 900}}},
    {{10, 13, {10, 22, 50, 120, 300, 850}}, {100, 9, {100, 170, 300, 900}}},
};

/* The stretch that finds what must be found differs from data to data, from 1.2 to 4 and more. So
 * a step is as much longer or shorter than the last one as would have halved what that left. */
static float calibration_next_stretch(const struct calibration *calibration, uint32_t k)
{
    const struct calibration_entry of_k = {.k = k, .stretch = 1.0f};
    const struct calibration_entry *last = calibration->entries + calibration->count;
    if (calibration->count == 0 || !calibration_is_one_group(--last, &of_k))
        return 1.0f;
    if (calibration->count == 1 || !calibration_is_one_group(last - 1, &of_k))
        return last->stretch + CALIBRATION_STEP;
    float before = 1.0f - last[-1].low, left = 1.0f - last->low;
    float growth = left > 0.0f && left < before ? logf(2.0f) / logf(before / left) : 2.0f;
    growth = growth > 2.0f ? 2.0f : growth < 0.5f ? 0.5f : growth;
    return last->stretch + (last->stretch - last[-1].stretch) * growth;
}

OMENDB_INTERNAL int calibration_rung(const struct calibration *calibration, size_t index,
                                     int by_stretch, struct calibration_entry *entry)
{
    for (size_t i = 0; i < 2; i++) {
        const struct calibration_ladder *ladder = &calibration_ladders[by_stretch][i];
        uint32_t count = 0;
        while (ladder->ef[count] != 0)
            count++;
        *entry = (struct calibration_entry){.k = ladder->k, .ef = ladder->ef[count - 1]};
        if (index < count) {
            entry->ef = ladder->ef[index];
            return 1;
        }
        index -= count;
        if (index < ladder->stretches) {
            entry->stretch = calibration_next_stretch(calibration, ladder->k);
            return 1;
        }
        index -= ladder->stretches;
    }
    return 0;
}

OMENDB_INTERNAL int calibration_is_one_group(const struct calibration_entry *a,
                                             const struct calibration_entry *b)
{
    return a->k == b->k && (a->stretch > 0.0f) == (b->stretch > 0.0f);
}

OMENDB_INTERNAL void calibration_add(struct calibration *calibration,
                                     const struct calibration_entry *rung, const float *recalls,
                                     uint32_t queries)
{
    double sum = 0.0, miss = 1.0 / rung->k, squares = miss * miss;
    struct calibration_entry entry = *rung;
    if (calibration->count == CALIBRATION_MAX_ENTRIES || queries == 0)
        return;
    for (uint32_t i = 0; i < queries; i++)
        sum += (double)recalls[i];
    double mean = sum / queries;
    for (uint32_t i = 0; i < queries; i++)
        squares += ((double)recalls[i] - mean) * ((double)recalls[i] - mean);
    double low = mean - CALIBRATION_NORMAL * sqrt(squares) / queries;
    entry.mean = (float)mean;
    entry.low = low > 0.0 ? (float)low : 0.0f;
    if (calibration->count != 0) {
        const struct calibration_entry *last = &calibration->entries[calibration->count - 1];
        if (calibration_is_one_group(last, &entry)) {
            entry.cost = entry.cost > last->cost ? entry.cost : last->cost;
            entry.mean = entry.mean > last->mean ? entry.mean : last->mean;
            entry.low = entry.low > last->low ? entry.low : last->low;
        }
    }
    calibration->queries = queries > calibration->queries ? queries : calibration->queries;
    calibration->entries[calibration->count++] = entry;
}

/* Whether the last rung by stretch has come near to a walk as wide as its cap: in what it finds,
 * where that is less than enough, or in what it costs. */
static int calibration_is_at_cap(const struct calibration_entry *last,
                                 const struct calibration_entry *cap)
{
    return (cap->low < CALIBRATION_ENOUGH && last->mean + CALIBRATION_HARDLY >= cap->mean) ||
           (float)last->cost >= CALIBRATION_DEAR * (float)cap->cost;
}

OMENDB_INTERNAL int calibration_is_enough(const struct calibration *calibration,
                                          const struct calibration_entry *rung)
{
    const struct calibration_entry *entries = calibration->entries, *last;
    if (calibration->count == 0)
        return 0;
    last = &entries[calibration->count - 1];
    if (!calibration_is_one_group(last, rung))
        return 0;
    for (uint32_t i = 0; rung->stretch > 0.0f && i < calibration->count; i++) {
        if (entries[i].k == rung->k && entries[i].stretch == 0.0f && entries[i].ef >= rung->ef &&
            calibration_is_at_cap(last, &entries[i]))
            return 1;
    }
    return last->low >= CALIBRATION_ENOUGH;
}

/* ------------------------------------------------------------------ asking */

/* The entries [first, last] of one k. There is at least one. */
struct calibration_group {
    const struct calibration_entry *entries;
    uint32_t first, last;
};

/* The groups of one kind for the nearest k below and above, which may be the same. */
struct calibration_groups {
    struct calibration_group below, above;
    double part;   /* where k lies between them in the logarithm, 0 to 1 */
    double growth; /* k by the largest one, at least 1 */
};

/* 0 without a group of the kind. */
static int calibration_find_groups(const struct calibration *calibration, int by_stretch, size_t k,
                                   struct calibration_groups *groups)
{
    const struct calibration_entry *entries = calibration->entries;
    int found = 0;
    for (uint32_t at = 0, end; at < calibration->count; at = end) {
        for (end = at + 1; end < calibration->count; end++) {
            if (!calibration_is_one_group(&entries[end], &entries[at]))
                break;
        }
        if ((entries[at].stretch > 0.0f) != by_stretch)
            continue;
        struct calibration_group group = {entries, at, end - 1};
        groups->below = found ? groups->above : group;
        groups->above = group;
        found = 1;
        if (entries[at].k >= k)
            break;
    }
    if (!found)
        return 0;
    uint32_t from = entries[groups->below.first].k, to = entries[groups->above.first].k;
    groups->growth = k > to ? (double)k / to : 1.0;
    groups->part = k >= to ? 1.0 : k <= from ? 0.0 : log((double)k / from) / log((double)to / from);
    return 1;
}

static size_t calibration_scaled_ef(double ef, double growth)
{
    ef = ceil(ef * growth - 1e-6);
    return ef < CALIBRATION_LARGEST_EF ? (size_t)ef : CALIBRATION_LARGEST_EF;
}

/* The effort for a recall but for its ef, which is not whole yet; 1 if the group reaches it. */
static int calibration_effort_of(const struct calibration_group *group, float recall, double *ef,
                                 struct calibration_answer *answer)
{
    const struct calibration_entry *to = &group->entries[group->last];
    for (uint32_t at = group->last; at > group->first && to[-1].low >= recall; at--)
        to--;
    *ef = to->ef;
    answer->stretch = to->stretch;
    answer->cost = (float)to->cost;
    answer->recall = to->low;
    if (to->low < recall)
        return 0;
    if (to == &group->entries[group->first])
        return 1;
    const struct calibration_entry *from = to - 1;
    float part = (recall - from->low) / (to->low - from->low);
    *ef = from->ef * pow((double)to->ef / from->ef, (double)part);
    answer->stretch = from->stretch + part * (to->stretch - from->stretch);
    answer->cost = (float)from->cost * powf((float)to->cost / (float)from->cost, part);
    answer->recall = recall;
    return 1;
}

/* The answer of one kind. Between two k an ef, and a cost, is interpolated in both logarithms: they
 * grow like a + b * k, which is below such a line. */
static void calibration_effort_between(const struct calibration_groups *groups, size_t k,
                                       float recall, struct calibration_answer *answer)
{
    struct calibration_answer less;
    double ef, less_ef;
    float part = (float)groups->part;
    *answer = (struct calibration_answer){.k = k};
    int reached = calibration_effort_of(&groups->above, recall, &ef, answer);
    if (part < 1.0f) {
        int of_less = calibration_effort_of(&groups->below, recall, &less_ef, &less);
        reached = of_less && (reached || part == 0.0f);
        ef = less_ef * pow(ef / less_ef, groups->part);
        answer->cost = less.cost * powf(answer->cost / less.cost, part);
        answer->recall = less.recall + part * (answer->recall - less.recall);
        answer->stretch = less.stretch + part * (answer->stretch - less.stretch);
    }
    answer->ef = answer->work = calibration_scaled_ef(ef, groups->growth);
    if (groups->growth > 1.0) /* 100 to 1,000 of 40,000 rows: five times the distances */
        answer->cost *= powf((float)groups->growth, 0.72f);
    answer->warnings = (groups->growth > 1.0 ? OMENDB_EXPLAIN_K_BEYOND : 0) |
                       (reached ? 0 : OMENDB_EXPLAIN_RECALL_BEYOND);
}

static int calibration_is_better(const struct calibration_answer *answer,
                                 const struct calibration_answer *other)
{
    uint32_t beyond = OMENDB_EXPLAIN_RECALL_BEYOND & answer->warnings;
    if (beyond != (OMENDB_EXPLAIN_RECALL_BEYOND & other->warnings))
        return beyond == 0;
    if (beyond != 0 && answer->recall != other->recall)
        return answer->recall > other->recall;
    return answer->cost < other->cost;
}

OMENDB_INTERNAL void calibration_find_effort(const struct calibration *calibration, size_t k,
                                             float recall, struct calibration_answer *answer)
{
    struct calibration_groups groups;
    struct calibration_answer stretched;
    int has_ef = calibration_find_groups(calibration, 0, k, &groups);
    *answer = (struct calibration_answer){.k = k};
    if (has_ef)
        calibration_effort_between(&groups, k, recall, answer);
    if (!calibration_find_groups(calibration, 1, k, &groups) || (has_ef && groups.growth > 1.0))
        return;
    uint32_t least = groups.below.entries[groups.below.first].k;
    calibration_effort_between(&groups, k < least ? least : k, recall, &stretched);
    if (has_ef)
        stretched.work = answer->work;
    if (!has_ef || calibration_is_better(&stretched, answer))
        *answer = stretched;
}

/* Over graphs of 20,000 to 500,000 vectors of SIFT and 100,000 of text the ef that misses a share m
 * of 10 grows like log(m)^2, over larger graphs faster; that for 100 is 2.3 times as large. This is
 * a quarter to a half above what half a million of SIFT need. */
OMENDB_INTERNAL size_t calibration_guess_ef(size_t k, float recall)
{
    double missed = 1.0 - (double)recall, wanted = k < 10 ? 10.0 : (double)k;
    double depth = log(missed > CALIBRATION_LEAST ? missed : CALIBRATION_LEAST);
    return calibration_scaled_ef(wanted + sqrt(10.0 * wanted) * depth * depth, 1.0);
}

static double calibration_effort_in(const struct calibration_entry *entry)
{
    return entry->stretch > 0.0f ? (double)entry->stretch : (double)entry->ef;
}

/* 0 below what was measured, and with a cap below that of the measured stretches. */
static float calibration_recall_of(const struct calibration_group *group, double ef, float stretch)
{
    const struct calibration_entry *from = &group->entries[group->first], *to = from;
    const struct calibration_entry *last = &group->entries[group->last];
    double effort = stretch > 0.0f ? (double)stretch : ef;
    if (effort < calibration_effort_in(from) || (stretch > 0.0f && ef < last->ef))
        return 0.0f;
    while (to < last && calibration_effort_in(to) <= effort)
        from = to++;
    double least = calibration_effort_in(from), most = calibration_effort_in(to);
    if (most <= effort)
        return to->low;
    double part = stretch > 0.0f ? (effort - least) / (most - least)
                                 : log(effort / least) / log(most / least);
    return from->low + (float)part * (to->low - from->low);
}

OMENDB_INTERNAL void calibration_find_recall(const struct calibration *calibration, size_t k,
                                             size_t ef, float stretch,
                                             struct calibration_answer *answer)
{
    struct calibration_groups groups;
    *answer = (struct calibration_answer){.k = k, .ef = ef, .stretch = stretch, .work = ef};
    if (!calibration_find_groups(calibration, stretch > 0.0f, k, &groups))
        return;
    if (stretch > 0.0f && (groups.growth > 1.0 || k < groups.below.entries[groups.below.first].k))
        return;
    answer->warnings = groups.growth > 1.0 ? OMENDB_EXPLAIN_K_BEYOND : 0;
    answer->recall = calibration_recall_of(&groups.above, (double)ef / groups.growth, stretch);
    if (groups.part < 1.0) {
        float less = calibration_recall_of(&groups.below, (double)ef, stretch);
        /* A stretch that one of the two was not measured with is not told of. */
        float told = less + (float)groups.part * (answer->recall - less);
        answer->recall = stretch > 0.0f && (less == 0.0f || answer->recall == 0.0f) ? 0.0f : told;
    }
}

/* ------------------------------------------------------------------ storing */

OMENDB_INTERNAL size_t calibration_bytes(const struct calibration *calibration)
{
    if (calibration == NULL || calibration->count == 0)
        return 0;
    return FORMAT_CALIBRATION_BYTES + (size_t)calibration->count * FORMAT_CURVE_BYTES;
}

OMENDB_INTERNAL void calibration_encode(const struct calibration *calibration, uint8_t *bytes)
{
    memset(bytes, 0, calibration_bytes(calibration));
    format_put32(bytes + FORMAT_CALIBRATION_ENTRIES, calibration->count);
    format_put32(bytes + FORMAT_CALIBRATION_QUERIES, calibration->queries);
    format_put32(bytes + FORMAT_CALIBRATION_ROWS, calibration->rows);
    format_put64(bytes + FORMAT_CALIBRATION_ALL_ROWS, calibration->all_rows);
    uint8_t *at = bytes + FORMAT_CALIBRATION_BYTES;
    for (uint32_t i = 0; i < calibration->count; i++, at += FORMAT_CURVE_BYTES) {
        const struct calibration_entry *entry = &calibration->entries[i];
        format_put32(at + FORMAT_CURVE_K, entry->k);
        format_put32(at + FORMAT_CURVE_EF, entry->ef);
        format_put_float(at + FORMAT_CURVE_STRETCH, entry->stretch);
        format_put_float(at + FORMAT_CURVE_MEAN, entry->mean);
        format_put_float(at + FORMAT_CURVE_LOW, entry->low);
        format_put32(at + FORMAT_CURVE_COST, entry->cost);
    }
}

OMENDB_INTERNAL int calibration_length_is_legal(uint64_t length)
{
    return length > FORMAT_CALIBRATION_BYTES &&
           (length - FORMAT_CALIBRATION_BYTES) % FORMAT_CURVE_BYTES == 0 &&
           (length - FORMAT_CALIBRATION_BYTES) / FORMAT_CURVE_BYTES <= CALIBRATION_MAX_ENTRIES;
}

/* Comparisons that a NaN fails. */
static int calibration_entry_is_legal(const struct calibration_entry *entry)
{
    return entry->k >= 1 && entry->k <= CALIBRATION_LARGEST_EF && entry->ef >= 1 &&
           entry->ef <= CALIBRATION_LARGEST_EF && entry->stretch >= 0.0f &&
           entry->stretch <= CALIBRATION_LARGEST_STRETCH && entry->low >= 0.0f &&
           entry->low <= entry->mean && entry->mean <= 1.0f && entry->cost >= 1;
}

static int calibration_ascends(const struct calibration_entry *from,
                               const struct calibration_entry *to)
{
    if (from->k != to->k)
        return from->k < to->k;
    if (!calibration_is_one_group(from, to))
        return from->stretch == 0.0f;
    return from->ef <= to->ef && from->stretch <= to->stretch &&
           (from->ef < to->ef || from->stretch < to->stretch) && from->low <= to->low &&
           from->cost <= to->cost;
}

OMENDB_INTERNAL int calibration_is_legal(const struct calibration *calibration)
{
    const struct calibration_entry *entries = calibration->entries;
    if (calibration->count == 0 || calibration->count > CALIBRATION_MAX_ENTRIES)
        return 0;
    for (uint32_t i = 0; i < calibration->count; i++) {
        if (!calibration_entry_is_legal(&entries[i]) ||
            (i > 0 && !calibration_ascends(&entries[i - 1], &entries[i])))
            return 0;
    }
    return 1;
}

OMENDB_INTERNAL int calibration_decode(struct calibration *calibration, const uint8_t *bytes,
                                       uint64_t length)
{
    memset(calibration, 0, sizeof *calibration);
    if (!calibration_length_is_legal(length))
        return 0;
    uint32_t count = format_get32(bytes + FORMAT_CALIBRATION_ENTRIES);
    const uint8_t *at = bytes + FORMAT_CALIBRATION_BYTES;
    if (count != (length - FORMAT_CALIBRATION_BYTES) / FORMAT_CURVE_BYTES)
        return 0;
    for (uint32_t i = 0; i < count; i++, at += FORMAT_CURVE_BYTES) {
        struct calibration_entry *entry = &calibration->entries[i];
        entry->k = format_get32(at + FORMAT_CURVE_K);
        entry->ef = format_get32(at + FORMAT_CURVE_EF);
        entry->stretch = format_get_float(at + FORMAT_CURVE_STRETCH);
        entry->mean = format_get_float(at + FORMAT_CURVE_MEAN);
        entry->low = format_get_float(at + FORMAT_CURVE_LOW);
        entry->cost = format_get32(at + FORMAT_CURVE_COST);
    }
    calibration->queries = format_get32(bytes + FORMAT_CALIBRATION_QUERIES);
    calibration->rows = format_get32(bytes + FORMAT_CALIBRATION_ROWS);
    calibration->all_rows = format_get64(bytes + FORMAT_CALIBRATION_ALL_ROWS);
    calibration->count = count;
    if (!calibration_is_legal(calibration))
        calibration->count = 0;
    return calibration->count != 0;
}

#undef CALIBRATION_NORMAL
#undef CALIBRATION_ENOUGH
#undef CALIBRATION_HARDLY
#undef CALIBRATION_DEAR
#undef CALIBRATION_STEP
#undef CALIBRATION_LEAST
