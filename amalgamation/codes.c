/* codes.c: see codes.h. */
#include "codes.h"

#include "sort.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define CODES_RUN         SCALAR_RUN /* elements converted at a time */
#define CODES_VECTOR_TAKE 64         /* elements of a vector that enter the sample */
#define CODES_CUTS        6
#define CODES_FEW_LEVELS  8 /* from the least to the most; of a sample's integers, too */
/* Part of the elements that make a code poor when they lie outside of the range. */
#define CODES_OUTSIDE_SHARE 2
/* Part of the vectors whose poor codes make codes useless. Under the inner product the levels are
 * few where a vector is short, and that is seldom what is looked for. */
#define CODES_POOR_SHARE         20
#define CODES_POOR_SHARE_PRODUCT 4
#define CODES_ALIKE_STEPS        16.0f /* between the ends of ranges that are as good as the same */

OMENDB_INTERNAL int codes_apply_to(const struct scalar_format *vectors)
{
    return (vectors->scalar == OMENDB_F32 || vectors->scalar == OMENDB_F16 ||
            vectors->scalar == OMENDB_BF16) &&
           codes_stride(vectors->dim) < scalar_bytes(vectors->scalar, vectors->dim);
}

OMENDB_INTERNAL size_t codes_stride(size_t dim)
{
    return (dim + 31) / 32 * 32;
}

OMENDB_INTERNAL const struct kernel *codes_kernel(const struct code_format *format)
{
    return format->vectors.metric == OMENDB_INNER_PRODUCT
               ? kernels_for(OMENDB_I8, OMENDB_INNER_PRODUCT)
               : kernels_for(OMENDB_U8, OMENDB_L2);
}

/* ------------------------------------------------------------------ choosing low and step */

/* What the elements are multiplied by before they are coded. */
static float codes_unit(const struct scalar_format *vectors, const void *vector)
{
    float run[CODES_RUN];
    double squares = 0.0;
    if (vectors->metric != OMENDB_COSINE)
        return 1.0f;
    for (size_t at = 0; at < vectors->dim; at += CODES_RUN) {
        size_t count = vectors->dim - at < CODES_RUN ? vectors->dim - at : CODES_RUN;
        scalar_widen(vectors->scalar, vector, at, count, run);
        for (size_t i = 0; i < count; i++)
            squares += (double)run[i] * (double)run[i];
    }
    return squares > 0.0 ? (float)(1.0 / sqrt(squares)) : 1.0f;
}

OMENDB_INTERNAL int codes_sample_begin(struct code_sample *sample, struct memory *memory)
{
    memset(sample, 0, sizeof *sample);
    sample->memory = memory;
    sample->capacity = CODES_SAMPLE_VECTORS * CODES_VECTOR_TAKE;
    sample->values = memory_array(memory, sample->capacity * 2, sizeof *sample->values);
    if (sample->values == NULL)
        return OMENDB_NOMEM;
    sample->sorted = sample->values + sample->capacity;
    return OMENDB_OK;
}

OMENDB_INTERNAL void codes_sample_end(struct code_sample *sample)
{
    memory_free(sample->memory, sample->values, sample->capacity * 2 * sizeof *sample->values);
}

OMENDB_INTERNAL void codes_sample_add(struct code_sample *sample,
                                      const struct scalar_format *vectors, const void *vector)
{
    float unit = codes_unit(vectors, vector);
    size_t take = vectors->dim < CODES_VECTOR_TAKE ? vectors->dim : CODES_VECTOR_TAKE;
    sample->take = take;
    for (size_t i = 0; i < take && sample->count < sample->capacity; i++) {
        size_t element = i;
        float value;
        if (vectors->dim > CODES_VECTOR_TAKE) { /* any, of each of as many equal ranges */
            size_t first = i * vectors->dim / take, next = (i + 1) * vectors->dim / take;
            sample->random =
                sample->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            element = first + (size_t)(sample->random >> 33) % (next - first);
        }
        scalar_widen(vectors->scalar, vector, element, 1, &value);
        sample->values[sample->count++] = value * unit;
    }
}

static int codes_compare(const void *left, const void *right)
{
    const float a = *(const float *)left, b = *(const float *)right;
    return a < b ? -1 : a > b;
}

static int codes_all_integers(const struct code_sample *sample)
{
    for (size_t i = 0; i < sample->count; i++) {
        if (sample->values[i] != nearbyintf(sample->values[i]))
            return 0;
    }
    return 1;
}

/* Squared error of one vector's elements in proportion to their squared distances from the median
 * of all, at most 1; rounding counts as its mean. */
static double codes_loss_of(const struct code_sample *sample, size_t first, double low, double high,
                            double step)
{
    double error = 0.0, squares = 0.0, median = (double)sample->sorted[sample->count / 2];
    for (size_t i = first; i < first + sample->take; i++) {
        double value = (double)sample->values[i], beyond = fmax(low - value, value - high);
        error += beyond > 0.0 ? beyond * beyond : step * step / 12.0;
        squares += (value - median) * (value - median);
    }
    return error < squares ? error / squares : error > 0.0;
}

/* Summed over vectors, not over elements: a few vectors with huge elements are better coded badly
 * than all others coarsely. */
static double codes_loss(const struct code_sample *sample, double low, double high, double step)
{
    double loss = 0.0;
    for (size_t at = 0; at + sample->take <= sample->count; at += sample->take)
        loss += codes_loss_of(sample, at, low, high, step);
    return loss;
}

/* Under the inner product the range is symmetric, and 0 is coded as 0. */
static void codes_choose_cut(const struct code_sample *sample, int symmetric,
                             struct code_format *format)
{
    /* How much of the sample is cut off at either end: rare large values would cost all others
     * their precision. */
    static const double cuts[CODES_CUTS] = {0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2};
    double best = INFINITY;
    for (size_t i = 0; i < CODES_CUTS; i++) {
        size_t cut = (size_t)(cuts[i] * (double)(sample->count - 1));
        double low = (double)sample->sorted[cut];
        double high = (double)sample->sorted[sample->count - 1 - cut];
        double step, loss;
        if (symmetric) {
            high = fabs(low) > fabs(high) ? fabs(low) : fabs(high);
            low = -high;
        }
        step = (high - low) / (symmetric ? 254.0 : 255.0);
        loss = codes_loss(sample, low, high, step);
        if (step > 0.0 && loss < best) {
            best = loss;
            format->low = symmetric ? 0.0f : (float)low;
            format->step = (float)step;
        }
    }
}

OMENDB_INTERNAL void codes_choose(struct code_sample *sample, const struct scalar_format *vectors,
                                  struct code_format *format)
{
    int symmetric = vectors->metric == OMENDB_INNER_PRODUCT;
    *format = (struct code_format){*vectors, 0.0f, 0.0f};
    if (sample->count == 0)
        return;
    memcpy(sample->sorted, sample->values, sample->count * sizeof *sample->sorted);
    sort_array(sample->sorted, sample->count, sizeof *sample->sorted, codes_compare);
    float first = sample->sorted[0], last = sample->sorted[sample->count - 1];
    if (codes_all_integers(sample) && last - first >= (float)CODES_FEW_LEVELS &&
        last - first <= 255.0f && fabsf(first) < 16777216.0f && fabsf(last) < 16777216.0f &&
        (!symmetric || (first >= -127.0f && last <= 127.0f))) {
        /* What the sample has not shown is as likely below as above, but for the usual 0 to 255. */
        int is_byte = first >= 0.0f && last <= 255.0f;
        format->low =
            symmetric || is_byte ? 0.0f : first - floorf((255.0f - (last - first)) / 2.0f);
        format->step = 1.0f;
        return;
    }
    codes_choose_cut(sample, symmetric, format);
    if (!(format->step > 1e-30f && format->step < 1e30f && fabsf(format->low) < 1e30f))
        format->step = 0.0f;
}

/* ------------------------------------------------------------------ coding */

/* Returns how many values are further than half a step outside of the range. Not-a-number, which
 * only a damaged file has, becomes the lowest code. */
static unsigned codes_store_u8(const float *values, size_t count, float low, float inverse,
                               uint8_t *out)
{
    unsigned outside = 0;
    for (size_t i = 0; i < count; i++) {
        float code = (values[i] - low) * inverse + 0.5f;
        outside += (unsigned)((code < 0.0f) | (code > 256.0f));
        code = code > 0.0f ? code : 0.0f;
        code = code < 255.0f ? code : 255.0f;
        out[i] = (uint8_t)(int)code;
    }
    return outside;
}

static unsigned codes_store_i8(const float *values, size_t count, float inverse, uint8_t *out)
{
    unsigned outside = 0;
    for (size_t i = 0; i < count; i++) {
        float code = values[i] * inverse + 127.5f;
        outside += (unsigned)((code < 0.0f) | (code > 255.0f));
        code = code > 0.0f ? code : 0.0f;
        code = code < 254.0f ? code : 254.0f;
        out[i] = (uint8_t)((int)code - 127);
    }
    return outside;
}

/* outside: receives how many elements the range does not cover. Returns 1 if the code is the
 * vector. */
static int codes_encode_with(const struct code_format *format, float step, const void *vector,
                             uint8_t *out, size_t *outside)
{
    const struct scalar_format *vectors = &format->vectors;
    float run[CODES_RUN], unit = codes_unit(vectors, vector);
    int symmetric = vectors->metric == OMENDB_INNER_PRODUCT;
    int exact = step == 1.0f && unit == 1.0f;
    *outside = 0;
    for (size_t at = 0; at < vectors->dim; at += CODES_RUN) {
        size_t count = vectors->dim - at < CODES_RUN ? vectors->dim - at : CODES_RUN;
        scalar_widen(vectors->scalar, vector, at, count, run);
        if (symmetric)
            *outside += codes_store_i8(run, count, unit / step, out + at);
        else
            *outside += codes_store_u8(run, count, format->low / unit, unit / step, out + at);
        for (size_t i = 0; exact && i < count; i++)
            exact = symmetric ? run[i] == (float)(int8_t)out[at + i]
                              : run[i] == format->low + (float)out[at + i];
    }
    memset(out + vectors->dim, 0, codes_stride(vectors->dim) - vectors->dim);
    return exact;
}

/* The largest magnitude of the elements. */
static float codes_largest(const struct scalar_format *vectors, const void *vector)
{
    float run[CODES_RUN], largest = 0.0f;
    for (size_t at = 0; at < vectors->dim; at += CODES_RUN) {
        size_t count = vectors->dim - at < CODES_RUN ? vectors->dim - at : CODES_RUN;
        scalar_widen(vectors->scalar, vector, at, count, run);
        for (size_t i = 0; i < count; i++)
            largest = fabsf(run[i]) > largest ? fabsf(run[i]) : largest;
    }
    return largest;
}

/* Whether the elements lie on so few levels that vectors of the kind share a code: with 6 levels
 * the ten nearest of 40,000 rows are among the 64 nearest by code, with 3 levels half of them. The
 * vector of zeros is no worse off for it. */
static int codes_has_few_levels(const struct code_format *format, const void *vector,
                                const uint8_t *code)
{
    int least = 255, most = 0, symmetric = format->vectors.metric == OMENDB_INNER_PRODUCT;
    for (size_t i = 0; i < format->vectors.dim; i++) {
        int level = symmetric ? (int8_t)code[i] + 127 : code[i];
        least = level < least ? level : least;
        most = level > most ? level : most;
    }
    return most - least < CODES_FEW_LEVELS && codes_largest(&format->vectors, vector) > 0.0f;
}

OMENDB_INTERNAL enum code_quality codes_encode(const struct code_format *format, const void *vector,
                                               uint8_t *out)
{
    size_t outside;
    if (codes_encode_with(format, format->step, vector, out, &outside))
        return CODE_EXACT;
    return outside * CODES_OUTSIDE_SHARE > format->vectors.dim ||
                   codes_has_few_levels(format, vector, out)
               ? CODE_POOR
               : CODE_GOOD;
}

OMENDB_INTERNAL int codes_serve(const struct code_format *format, size_t vectors, size_t poor)
{
    int product = format->vectors.metric == OMENDB_INNER_PRODUCT;
    return poor * (product ? CODES_POOR_SHARE_PRODUCT : CODES_POOR_SHARE) <= vectors;
}

OMENDB_INTERNAL int codes_are_alike(const struct code_format *a, const struct code_format *b)
{
    return fabsf(a->low - b->low) < CODES_ALIKE_STEPS * b->step && a->step > 0.8f * b->step &&
           a->step < 1.25f * b->step;
}

/* A factor of the query does not change the order of inner products, so a query uses all of its
 * bits. */
OMENDB_INTERNAL int codes_encode_query(const struct code_format *format, const void *vector,
                                       uint8_t *out)
{
    float step = format->step;
    size_t outside;
    if (format->vectors.metric == OMENDB_INNER_PRODUCT) {
        step = codes_largest(&format->vectors, vector) / 127.0f;
        step = step > FLT_MIN ? step : FLT_MIN;
    }
    return codes_encode_with(format, step, vector, out, &outside);
}

OMENDB_INTERNAL int codes_are_exact(const struct code_format *format)
{
    return format->vectors.metric == OMENDB_L2 && format->step == 1.0f &&
           format->vectors.dim <= 258; /* sums below 2^24 */
}

#undef CODES_RUN
#undef CODES_VECTOR_TAKE
#undef CODES_CUTS
#undef CODES_FEW_LEVELS
#undef CODES_OUTSIDE_SHARE
#undef CODES_POOR_SHARE
#undef CODES_POOR_SHARE_PRODUCT
#undef CODES_ALIKE_STEPS
