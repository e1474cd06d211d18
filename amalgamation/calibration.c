/* calibration.c: curves of recall by effort: made from samples, asked, stored. calibrate.c
 * measures.
 *
 * The bound. The recalls of n queries have a mean m and a variance v; the mean over all queries
 * like them is above m - 1.645 * sqrt(v / n) with a probability of 95 %. A sample in which
 * everything was found has a variance of 0, which would promise too much: one more missed neighbour
 * is added to it. Bounds are then made to ascend with the effort, as recall does.
 *
 * Between two entries the effort is taken on a straight line in log(ef). Recall is concave there,
 * so that the line lies below the curve, and what is promised is kept.
 *
 * A recall above the last entry's bound gets the last entry's effort, which is the most that was
 * measured, and a warning. Extrapolation was rejected: a curve's end is where some queries are out
 * of a walk's reach, and no effort can be named for them.
 *
 * Nothing read from a file is trusted: a curve that is not one is none. */
#include "calibration.h"

#include "format.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define CALIBRATION_NORMAL 1.645 /* one-sided 95 % of the normal distribution */
#define CALIBRATION_ENOUGH 0.999f

/* ------------------------------------------------------------------ making */

OMENDB_INTERNAL int calibration_rung(size_t index, struct calibration_entry *entry)
{
    /* Steps of about one and a half: a straight line between two is below the curve by less than
     * the sample's own doubt. */
    static const uint32_t ladder[][2] = {
        {10, 10},   {10, 15},   {10, 22},   {10, 33},   {10, 50},   {10, 75},   {10, 110},
        {10, 165},  {10, 250},  {10, 375},  {10, 560},  {10, 850},  {100, 100}, {100, 140},
        {100, 200}, {100, 280}, {100, 400}, {100, 600}, {100, 900},
    };
    _Static_assert(sizeof ladder / sizeof ladder[0] <= CALIBRATION_MAX_ENTRIES,
                   "a curve holds the ladder");
    if (index >= sizeof ladder / sizeof ladder[0])
        return 0;
    *entry = (struct calibration_entry){.k = ladder[index][0], .ef = ladder[index][1]};
    return 1;
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
        if (last->k == entry.k) {
            entry.mean = entry.mean > last->mean ? entry.mean : last->mean;
            entry.low = entry.low > last->low ? entry.low : last->low;
        }
    }
    calibration->queries = queries > calibration->queries ? queries : calibration->queries;
    calibration->entries[calibration->count++] = entry;
}

OMENDB_INTERNAL int calibration_is_enough(const struct calibration *calibration, uint32_t k)
{
    if (calibration->count == 0)
        return 0;
    const struct calibration_entry *last = &calibration->entries[calibration->count - 1];
    return last->k == k && last->low >= CALIBRATION_ENOUGH;
}

/* ------------------------------------------------------------------ asking */

/* The entries [first, last] of one k. There is at least one. */
struct calibration_group {
    const struct calibration_entry *entries;
    uint32_t first, last;
};

/* The groups of the nearest k below and above, which may be the same; where k lies between them in
 * the logarithm, 0 to 1. */
static double calibration_groups(const struct calibration *calibration, size_t k,
                                 struct calibration_group *below, struct calibration_group *above)
{
    const struct calibration_entry *entries = calibration->entries;
    *below = *above = (struct calibration_group){entries, 0, 0};
    for (uint32_t at = 0; at < calibration->count; at = above->last + 1) {
        uint32_t end = at;
        while (end + 1 < calibration->count && entries[end + 1].k == entries[at].k)
            end++;
        *below = *above;
        *above = (struct calibration_group){entries, at, end};
        if (at == 0)
            *below = *above;
        if (entries[at].k >= k)
            break;
    }
    uint32_t from = entries[below->first].k, to = entries[above->first].k;
    if (k >= to || from == to) {
        *below = *above;
        return 1.0;
    }
    return k <= from ? 0.0 : log((double)k / from) / log((double)to / from);
}

static size_t calibration_scaled_ef(double ef, double growth)
{
    ef = ceil(ef * growth - 1e-6);
    return ef < CALIBRATION_LARGEST_EF ? (size_t)ef : CALIBRATION_LARGEST_EF;
}

/* The effort for a recall; 1 if the group reaches it. */
static int calibration_effort_of(const struct calibration_group *group, float recall, double *ef,
                                 struct calibration_answer *answer)
{
    const struct calibration_entry *to = &group->entries[group->last];
    for (uint32_t at = group->last; at > group->first && to[-1].low >= recall; at--)
        to--;
    *ef = to->ef;
    answer->stretch = to->stretch;
    answer->recall = to->low;
    if (to->low < recall)
        return 0;
    if (to == &group->entries[group->first])
        return 1;
    const struct calibration_entry *from = to - 1;
    double part = ((double)recall - (double)from->low) / ((double)to->low - (double)from->low);
    *ef = from->ef * pow((double)to->ef / from->ef, part);
    answer->stretch = from->stretch + (float)part * (to->stretch - from->stretch);
    answer->recall = recall;
    return 1;
}

/* Between two k the effort is interpolated in both logarithms: it grows like a + b * k, which is
 * below such a line. */
OMENDB_INTERNAL void calibration_find_effort(const struct calibration *calibration, size_t k,
                                             float recall, struct calibration_answer *answer)
{
    struct calibration_group below, above;
    struct calibration_answer less;
    double part = calibration_groups(calibration, k, &below, &above), ef, less_ef;
    uint32_t largest = above.entries[above.first].k;
    double growth = k > largest ? (double)k / largest : 1.0;
    answer->warnings = growth > 1.0 ? OMENDB_EXPLAIN_K_BEYOND : 0;
    int reached = calibration_effort_of(&above, recall, &ef, answer);
    if (part < 1.0) {
        int of_less = calibration_effort_of(&below, recall, &less_ef, &less);
        reached = of_less && (reached || part == 0.0);
        ef = less_ef * pow(ef / less_ef, part);
        answer->recall = less.recall + (float)part * (answer->recall - less.recall);
        answer->stretch = less.stretch + (float)part * (answer->stretch - less.stretch);
    }
    answer->warnings |= reached ? 0 : OMENDB_EXPLAIN_RECALL_BEYOND;
    answer->ef = calibration_scaled_ef(ef, growth);
}

/* 0 below what was measured. */
static float calibration_recall_of(const struct calibration_group *group, double ef)
{
    const struct calibration_entry *from = &group->entries[group->first], *to = from;
    if (ef < from->ef)
        return 0.0f;
    while (to < &group->entries[group->last] && to->ef <= ef)
        from = to++;
    if (to->ef <= ef)
        return to->low;
    double part = log(ef / from->ef) / log((double)to->ef / from->ef);
    return from->low + (float)part * (to->low - from->low);
}

OMENDB_INTERNAL void calibration_find_recall(const struct calibration *calibration, size_t k,
                                             size_t ef, struct calibration_answer *answer)
{
    struct calibration_group below, above;
    double part = calibration_groups(calibration, k, &below, &above);
    uint32_t largest = above.entries[above.first].k;
    double growth = k > largest ? (double)k / largest : 1.0;
    *answer =
        (struct calibration_answer){ef, 0.0f, 0.0f, growth > 1.0 ? OMENDB_EXPLAIN_K_BEYOND : 0};
    answer->recall = calibration_recall_of(&above, (double)ef / growth);
    if (part < 1.0) {
        float less = calibration_recall_of(&below, (double)ef);
        answer->recall = less + (float)part * (answer->recall - less);
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
           entry->stretch <= FLT_MAX && entry->low >= 0.0f && entry->low <= entry->mean &&
           entry->mean <= 1.0f;
}

static int calibration_ascends(const struct calibration_entry *from,
                               const struct calibration_entry *to)
{
    if (from->k != to->k)
        return from->k < to->k;
    return from->ef <= to->ef && from->stretch <= to->stretch &&
           (from->ef < to->ef || from->stretch < to->stretch) && from->low <= to->low;
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
