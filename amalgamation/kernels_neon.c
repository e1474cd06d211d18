/* kernels_neon.c: NEON, which every 64-bit Arm processor has, and a second level with the dot
 * product instructions UDOT and SDOT (Neoverse N1 and Apple M1 onwards).
 *
 * What binds: two to four 16-byte FMAs of latency 4 and two or three 16-byte loads a cycle. 32
 * registers hold four rows of four chains each; a single pair uses the same four, so that the bits
 * agree. f16 is widened by FCVTL, bf16 by a shift. i8 and u8: UMULL or SMULL to 16 bits and a
 * pairwise accumulation to 32 (UADALP), or one UDOT or SDOT for 16 products. |a - b| of signed
 * bytes, taken by SABD, is right as an unsigned byte.
 *
 * The rest of a vector after the last whole block of 16 elements is copied into a zeroed block.
 *
 * Rejected: FP16 arithmetic, whose half-precision sums would break the error bound, and BFDOT,
 * which rounds differently from everything else; SVE, whose gain over four NEON pipes is nil at 128
 * bits. */
#include "kernels.h"

#if KERNELS_NEON

#include <arm_neon.h>
#include <string.h>

#define NEON_BLOCK 16 /* elements a step of all kernels */

struct neon_floats {
    float32x4_t a, b, c, d;
};

KERNELS_INLINE float32x4_t neon_load4(omendb_scalar type, const unsigned char *from)
{
    if (type == OMENDB_F32) {
        return vreinterpretq_f32_u8(vld1q_u8(from));
    }
    if (type == OMENDB_F16) {
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from)));
    }
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(from)), 16));
}

KERNELS_INLINE struct neon_floats neon_load(omendb_scalar type, const void *vector, size_t i)
{
    const size_t bytes = type == OMENDB_F32 ? 4 : 2;
    const unsigned char *from = (const unsigned char *)vector + i * bytes;
    struct neon_floats out;

    out.a = neon_load4(type, from);
    out.b = neon_load4(type, from + 4 * bytes);
    out.c = neon_load4(type, from + 8 * bytes);
    out.d = neon_load4(type, from + 12 * bytes);
    return out;
}

/* The last dim % NEON_BLOCK elements, and zeros. */
KERNELS_INLINE struct neon_floats neon_load_last(omendb_scalar type, const void *vector, size_t dim)
{
    const size_t bytes = type == OMENDB_F32 ? 4 : 2, count = dim % NEON_BLOCK;
    unsigned char copy[4 * NEON_BLOCK] = {0};

    memcpy(copy, (const unsigned char *)vector + (dim - count) * bytes, count * bytes);
    return neon_load(type, copy, 0);
}

/* Four chains of terms, or under cosine two of products and two of the row's squares. */
KERNELS_INLINE struct neon_floats neon_step(omendb_metric metric, struct neon_floats sums,
                                            struct neon_floats query, struct neon_floats row)
{
    if (metric == OMENDB_L2) {
        const float32x4_t a = vsubq_f32(query.a, row.a), b = vsubq_f32(query.b, row.b);
        const float32x4_t c = vsubq_f32(query.c, row.c), d = vsubq_f32(query.d, row.d);
        sums.a = vfmaq_f32(sums.a, a, a);
        sums.b = vfmaq_f32(sums.b, b, b);
        sums.c = vfmaq_f32(sums.c, c, c);
        sums.d = vfmaq_f32(sums.d, d, d);
    } else if (metric == OMENDB_INNER_PRODUCT) {
        sums.a = vfmaq_f32(sums.a, query.a, row.a);
        sums.b = vfmaq_f32(sums.b, query.b, row.b);
        sums.c = vfmaq_f32(sums.c, query.c, row.c);
        sums.d = vfmaq_f32(sums.d, query.d, row.d);
    } else {
        sums.a = vfmaq_f32(sums.a, query.a, row.a);
        sums.b = vfmaq_f32(sums.b, query.b, row.b);
        sums.c = vfmaq_f32(sums.c, row.a, row.a);
        sums.d = vfmaq_f32(sums.d, row.b, row.b);
        sums.a = vfmaq_f32(sums.a, query.c, row.c);
        sums.b = vfmaq_f32(sums.b, query.d, row.d);
        sums.c = vfmaq_f32(sums.c, row.c, row.c);
        sums.d = vfmaq_f32(sums.d, row.d, row.d);
    }
    return sums;
}

KERNELS_INLINE struct neon_floats neon_zero_chains(void)
{
    const float32x4_t zero = vdupq_n_f32(0.0f);
    const struct neon_floats out = {zero, zero, zero, zero};

    return out;
}

KERNELS_INLINE double neon_squares(struct neon_floats sums)
{
    return (double)vaddvq_f32(vaddq_f32(sums.c, sums.d));
}

/* query_norm is read under cosine only. */
KERNELS_INLINE float neon_finish(omendb_metric metric, struct neon_floats sums, double query_norm)
{
    const float32x4_t first = vaddq_f32(sums.a, sums.b), second = vaddq_f32(sums.c, sums.d);

    if (metric == OMENDB_COSINE) {
        return kernels_cosine((double)vaddvq_f32(first), query_norm, neon_squares(sums));
    }
    if (metric == OMENDB_L2) {
        return vaddvq_f32(vaddq_f32(first, second));
    }
    return 0.0f - vaddvq_f32(vaddq_f32(first, second));
}

KERNELS_INLINE struct neon_floats neon_float_sums(omendb_scalar type, omendb_metric metric,
                                                  const void *a, const void *b, size_t dim)
{
    struct neon_floats sums = neon_zero_chains();
    size_t i;

    for (i = 0; i + NEON_BLOCK <= dim; i += NEON_BLOCK) {
        sums = neon_step(metric, sums, neon_load(type, a, i), neon_load(type, b, i));
    }
    if (i < dim) {
        sums = neon_step(metric, sums, neon_load_last(type, a, dim), neon_load_last(type, b, dim));
    }
    return sums;
}

KERNELS_INLINE double neon_float_norm(omendb_scalar type, omendb_metric metric, const void *query,
                                      size_t dim)
{
    return metric == OMENDB_COSINE ? neon_squares(neon_float_sums(type, metric, query, query, dim))
                                   : 0.0;
}

KERNELS_INLINE float neon_float_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                     const void *b, size_t dim)
{
    return neon_finish(metric, neon_float_sums(type, metric, a, b, dim),
                       neon_float_norm(type, metric, a, dim));
}

KERNELS_INLINE void neon_float_four(omendb_scalar type, omendb_metric metric, const void *query,
                                    double query_norm, const void *const *rows, size_t dim,
                                    float *out)
{
    const void *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct neon_floats a = neon_zero_chains(), b = a, c = a, d = a;
    size_t i;

    for (i = 0; i + NEON_BLOCK <= dim; i += NEON_BLOCK) {
        const struct neon_floats block = neon_load(type, query, i);
        a = neon_step(metric, a, block, neon_load(type, row_a, i));
        b = neon_step(metric, b, block, neon_load(type, row_b, i));
        c = neon_step(metric, c, block, neon_load(type, row_c, i));
        d = neon_step(metric, d, block, neon_load(type, row_d, i));
    }
    if (i < dim) {
        const struct neon_floats block = neon_load_last(type, query, dim);
        a = neon_step(metric, a, block, neon_load_last(type, row_a, dim));
        b = neon_step(metric, b, block, neon_load_last(type, row_b, dim));
        c = neon_step(metric, c, block, neon_load_last(type, row_c, dim));
        d = neon_step(metric, d, block, neon_load_last(type, row_d, dim));
    }
    out[0] = neon_finish(metric, a, query_norm);
    out[1] = neon_finish(metric, b, query_norm);
    out[2] = neon_finish(metric, c, query_norm);
    out[3] = neon_finish(metric, d, query_norm);
}

KERNELS_INLINE void neon_float_many(omendb_scalar type, omendb_metric metric, const void *query,
                                    const void *const *rows, size_t count, size_t dim, float *out)
{
    const double query_norm = neon_float_norm(type, metric, query, dim);
    size_t i;

    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        float distances[4];
        neon_float_four(type, metric, query, query_norm, group, dim, distances);
        memcpy(out + i, distances, (count - i < 4 ? count - i : 4) * sizeof *out);
    }
}

/* Sums of terms, and under cosine of the row's squares; of signed ones as two's complement. */
struct neon_int_sums {
    uint32x4_t terms, squares;
};

KERNELS_INLINE uint8x16_t neon_load_last_bytes(const unsigned char *vector, size_t dim)
{
    unsigned char copy[NEON_BLOCK] = {0};

    memcpy(copy, vector + dim - dim % NEON_BLOCK, dim % NEON_BLOCK);
    return vld1q_u8(copy);
}

KERNELS_INLINE uint8x16_t neon_difference(omendb_scalar type, uint8x16_t a, uint8x16_t b)
{
    if (type == OMENDB_U8) {
        return vabdq_u8(a, b);
    }
    return vreinterpretq_u8_s8(vabdq_s8(vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b)));
}

KERNELS_INLINE uint32x4_t neon_add_products(omendb_scalar type, uint32x4_t sum, uint8x16_t a,
                                            uint8x16_t b)
{
    if (type == OMENDB_U8) {
        sum = vpadalq_u16(sum, vmull_u8(vget_low_u8(a), vget_low_u8(b)));
        return vpadalq_u16(sum, vmull_high_u8(a, b));
    } else {
        const int8x16_t x = vreinterpretq_s8_u8(a), y = vreinterpretq_s8_u8(b);
        int32x4_t total = vreinterpretq_s32_u32(sum);
        total = vpadalq_s16(total, vmull_s8(vget_low_s8(x), vget_low_s8(y)));
        return vreinterpretq_u32_s32(vpadalq_s16(total, vmull_high_s8(x, y)));
    }
}

KERNELS_INLINE struct neon_int_sums neon_int_step(omendb_scalar type, omendb_metric metric,
                                                  struct neon_int_sums sums, uint8x16_t query,
                                                  uint8x16_t row)
{
    if (metric == OMENDB_L2) {
        const uint8x16_t difference = neon_difference(type, query, row);
        sums.terms = neon_add_products(OMENDB_U8, sums.terms, difference, difference);
        return sums;
    }
    sums.terms = neon_add_products(type, sums.terms, query, row);
    if (metric == OMENDB_COSINE) {
        sums.squares = neon_add_products(type, sums.squares, row, row);
    }
    return sums;
}

KERNELS_INLINE struct neon_int_sums neon_zero_sums(void)
{
    const struct neon_int_sums zero = {vdupq_n_u32(0), vdupq_n_u32(0)};

    return zero;
}

KERNELS_INLINE float neon_int_finish(omendb_scalar type, omendb_metric metric,
                                     struct neon_int_sums sums, double query_norm)
{
    const uint32_t terms = vaddvq_u32(sums.terms);
    double total = (double)terms;

    if (metric == OMENDB_L2) {
        return (float)total;
    }
    if (type == OMENDB_I8) {
        total = (double)(int32_t)terms;
    }
    return metric == OMENDB_COSINE
               ? kernels_cosine(total, query_norm, (double)vaddvq_u32(sums.squares))
               : (float)(0.0 - total);
}

/* The bodies below are the same for both levels but for the instructions of a step, and a function
 * with a target attribute cannot be a parameter of one without; hence the macro. */
#define NEON_INT_BODIES(target, level, step)                                                       \
    target KERNELS_INLINE struct neon_int_sums level##_int_sums(                                   \
        omendb_scalar type, omendb_metric metric, const unsigned char *a, const unsigned char *b,  \
        size_t dim)                                                                                \
    {                                                                                              \
        struct neon_int_sums sums = neon_zero_sums();                                              \
        size_t i;                                                                                  \
                                                                                                   \
        for (i = 0; i + NEON_BLOCK <= dim; i += NEON_BLOCK) {                                      \
            sums = step(type, metric, sums, vld1q_u8(a + i), vld1q_u8(b + i));                     \
        }                                                                                          \
        if (i < dim) {                                                                             \
            sums = step(type, metric, sums, neon_load_last_bytes(a, dim),                          \
                        neon_load_last_bytes(b, dim));                                             \
        }                                                                                          \
        return sums;                                                                               \
    }                                                                                              \
                                                                                                   \
    target KERNELS_INLINE double level##_int_norm(omendb_scalar type, omendb_metric metric,        \
                                                  const void *query, size_t dim)                   \
    {                                                                                              \
        if (metric != OMENDB_COSINE) {                                                             \
            return 0.0;                                                                            \
        }                                                                                          \
        return (double)vaddvq_u32(level##_int_sums(type, metric, query, query, dim).squares);      \
    }                                                                                              \
                                                                                                   \
    target KERNELS_INLINE float level##_int_pair(omendb_scalar type, omendb_metric metric,         \
                                                 const void *a, const void *b, size_t dim)         \
    {                                                                                              \
        return neon_int_finish(type, metric, level##_int_sums(type, metric, a, b, dim),            \
                               level##_int_norm(type, metric, a, dim));                            \
    }                                                                                              \
                                                                                                   \
    target KERNELS_INLINE void level##_int_four(omendb_scalar type, omendb_metric metric,          \
                                                const unsigned char *query, double query_norm,     \
                                                const void *const *rows, size_t dim, float *out)   \
    {                                                                                              \
        const unsigned char *row_a = rows[0], *row_b = rows[1], *row_c = rows[2],                  \
                            *row_d = rows[3];                                                      \
        struct neon_int_sums a = neon_zero_sums(), b = a, c = a, d = a;                            \
        size_t i;                                                                                  \
                                                                                                   \
        for (i = 0; i + NEON_BLOCK <= dim; i += NEON_BLOCK) {                                      \
            const uint8x16_t block = vld1q_u8(query + i);                                          \
            a = step(type, metric, a, block, vld1q_u8(row_a + i));                                 \
            b = step(type, metric, b, block, vld1q_u8(row_b + i));                                 \
            c = step(type, metric, c, block, vld1q_u8(row_c + i));                                 \
            d = step(type, metric, d, block, vld1q_u8(row_d + i));                                 \
        }                                                                                          \
        if (i < dim) {                                                                             \
            const uint8x16_t block = neon_load_last_bytes(query, dim);                             \
            a = step(type, metric, a, block, neon_load_last_bytes(row_a, dim));                    \
            b = step(type, metric, b, block, neon_load_last_bytes(row_b, dim));                    \
            c = step(type, metric, c, block, neon_load_last_bytes(row_c, dim));                    \
            d = step(type, metric, d, block, neon_load_last_bytes(row_d, dim));                    \
        }                                                                                          \
        out[0] = neon_int_finish(type, metric, a, query_norm);                                     \
        out[1] = neon_int_finish(type, metric, b, query_norm);                                     \
        out[2] = neon_int_finish(type, metric, c, query_norm);                                     \
        out[3] = neon_int_finish(type, metric, d, query_norm);                                     \
    }                                                                                              \
                                                                                                   \
    target KERNELS_INLINE void level##_int_many(omendb_scalar type, omendb_metric metric,          \
                                                const void *query, const void *const *rows,        \
                                                size_t count, size_t dim, float *out)              \
    {                                                                                              \
        const double query_norm = level##_int_norm(type, metric, query, dim);                      \
        size_t i;                                                                                  \
                                                                                                   \
        for (i = 0; i < count; i += 4) {                                                           \
            const void *padded[4];                                                                 \
            const void *const *group = kernels_group(rows, i, count, padded);                      \
            float distances[4];                                                                    \
            level##_int_four(type, metric, query, query_norm, group, dim, distances);              \
            memcpy(out + i, distances, (count - i < 4 ? count - i : 4) * sizeof *out);             \
        }                                                                                          \
    }

NEON_INT_BODIES(, neon, neon_int_step)

static float neon_hamming_pair(const void *a, const void *b, size_t dim)
{
    const unsigned char *x = a, *y = b;
    const size_t bytes = (dim + 7) / 8;
    uint32x4_t sums = vdupq_n_u32(0);
    size_t i;

    for (i = 0; i + NEON_BLOCK <= bytes; i += NEON_BLOCK) {
        const uint8x16_t bits = vcntq_u8(veorq_u8(vld1q_u8(x + i), vld1q_u8(y + i)));
        sums = vpadalq_u16(sums, vpaddlq_u8(bits));
    }
    if (i < bytes) {
        const uint8x16_t bits =
            vcntq_u8(veorq_u8(neon_load_last_bytes(x, bytes), neon_load_last_bytes(y, bytes)));
        sums = vpadalq_u16(sums, vpaddlq_u8(bits));
    }
    return (float)vaddvq_u32(sums);
}

static void neon_hamming_many(const void *query, const void *const *rows, size_t count, size_t dim,
                              float *out)
{
    size_t i;

    for (i = 0; i < count; i++) {
        out[i] = neon_hamming_pair(query, rows[i], dim);
    }
}

KERNELS_DEFINE_TYPE(, neon, float, f32, OMENDB_F32)
KERNELS_DEFINE_TYPE(, neon, float, f16, OMENDB_F16)
KERNELS_DEFINE_TYPE(, neon, float, bf16, OMENDB_BF16)
KERNELS_DEFINE_TYPE(, neon, int, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(, neon, int, u8, OMENDB_U8)

OMENDB_INTERNAL const struct kernel_table *kernels_neon_table(void)
{
    static const struct kernel_table table = {
        "neon",
        {
            [OMENDB_F32] = KERNELS_ROW(neon, f32),
            [OMENDB_F16] = KERNELS_ROW(neon, f16),
            [OMENDB_BF16] = KERNELS_ROW(neon, bf16),
            [OMENDB_I8] = KERNELS_ROW(neon, i8),
            [OMENDB_U8] = KERNELS_ROW(neon, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(neon),
        },
    };

    return &table;
}

#if KERNELS_NEONDOT

#if defined(__ARM_FEATURE_DOTPROD)
#define NEONDOT
#elif defined(__clang__)
#define NEONDOT __attribute__((target("dotprod")))
#else
#define NEONDOT __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

NEONDOT KERNELS_INLINE uint32x4_t neondot_add_products(omendb_scalar type, uint32x4_t sum,
                                                       uint8x16_t a, uint8x16_t b)
{
    if (type == OMENDB_U8) {
        return vdotq_u32(sum, a, b);
    }
    return vreinterpretq_u32_s32(
        vdotq_s32(vreinterpretq_s32_u32(sum), vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b)));
}

NEONDOT KERNELS_INLINE struct neon_int_sums neondot_int_step(omendb_scalar type,
                                                             omendb_metric metric,
                                                             struct neon_int_sums sums,
                                                             uint8x16_t query, uint8x16_t row)
{
    if (metric == OMENDB_L2) {
        const uint8x16_t difference = neon_difference(type, query, row);
        sums.terms = neondot_add_products(OMENDB_U8, sums.terms, difference, difference);
        return sums;
    }
    sums.terms = neondot_add_products(type, sums.terms, query, row);
    if (metric == OMENDB_COSINE) {
        sums.squares = neondot_add_products(type, sums.squares, row, row);
    }
    return sums;
}

NEON_INT_BODIES(NEONDOT, neondot, neondot_int_step)

KERNELS_DEFINE_TYPE(NEONDOT, neondot, int, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(NEONDOT, neondot, int, u8, OMENDB_U8)

OMENDB_INTERNAL const struct kernel_table *kernels_neondot_table(void)
{
    static const struct kernel_table table = {
        "neondotprod",
        {
            [OMENDB_F32] = KERNELS_ROW(neon, f32),
            [OMENDB_F16] = KERNELS_ROW(neon, f16),
            [OMENDB_BF16] = KERNELS_ROW(neon, bf16),
            [OMENDB_I8] = KERNELS_ROW(neondot, i8),
            [OMENDB_U8] = KERNELS_ROW(neondot, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(neon),
        },
    };

    return &table;
}

#undef NEONDOT

#endif

#undef NEON_BLOCK
#undef NEON_INT_BODIES

#endif
