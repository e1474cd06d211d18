/* kernels_scalar.c: the level that runs everywhere, in plain C.
 *
 * Used where no other level is compiled (MSVC, processors other than x86-64 and arm64) or asked
 * for, and as the reference that the others are read against. Floats are summed in four chains,
 * since one addition would otherwise wait three to four cycles for the last; integers by inner
 * loops of constant length, which compilers turn into baseline vectors (SSE2) already at -O2.
 *
 * Elements are read by memcpy, which compiles to plain loads and allows any address. Integers are
 * summed in uint32_t, where wrapping is defined; the sum of i8 products is read back as two's
 * complement.
 *
 * Rejected: sharing the query among four rows. Compilers keep four rows' sums in registers badly
 * without vectors, and a level that is not meant to be fast had better be short. */
#include "kernels.h"

#include <string.h>

#include "scalar.h"

#define PORTABLE_BLOCK 16 /* integers in a run */

KERNELS_INLINE float portable_float(omendb_scalar type, const unsigned char *vector, size_t i)
{
    uint16_t half;
    float value;

    if (type == OMENDB_F32) {
        memcpy(&value, vector + 4 * i, sizeof value);
        return value;
    }
    memcpy(&half, vector + 2 * i, sizeof half);
    return type == OMENDB_F16 ? scalar_f16_to_f32(half) : scalar_bf16_to_f32(half);
}

KERNELS_INLINE float portable_float_term(omendb_scalar type, omendb_metric metric, const void *a,
                                         const void *b, size_t i)
{
    const float x = portable_float(type, a, i), y = portable_float(type, b, i);

    return metric == OMENDB_L2 ? (x - y) * (x - y) : x * y;
}

/* The sum of the metric's terms: squared differences, or products. */
KERNELS_INLINE float portable_float_sum(omendb_scalar type, omendb_metric metric, const void *a,
                                        const void *b, size_t dim)
{
    float sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
    size_t i = 0;

    for (; i + 4 <= dim; i += 4) {
        sum0 += portable_float_term(type, metric, a, b, i);
        sum1 += portable_float_term(type, metric, a, b, i + 1);
        sum2 += portable_float_term(type, metric, a, b, i + 2);
        sum3 += portable_float_term(type, metric, a, b, i + 3);
    }
    for (; i < dim; i++) {
        sum0 += portable_float_term(type, metric, a, b, i);
    }
    return (sum0 + sum1) + (sum2 + sum3);
}

KERNELS_INLINE uint32_t portable_int_term(omendb_scalar type, omendb_metric metric, unsigned char a,
                                          unsigned char b)
{
    const int32_t x = type == OMENDB_I8 ? (int8_t)a : a, y = type == OMENDB_I8 ? (int8_t)b : b;

    return (uint32_t)(metric == OMENDB_L2 ? (x - y) * (x - y) : x * y);
}

KERNELS_INLINE double portable_int_sum(omendb_scalar type, omendb_metric metric,
                                       const unsigned char *a, const unsigned char *b, size_t dim)
{
    uint32_t sum = 0;
    size_t i = 0, lane;

    for (; i + PORTABLE_BLOCK <= dim; i += PORTABLE_BLOCK) {
        for (lane = 0; lane < PORTABLE_BLOCK; lane++) {
            sum += portable_int_term(type, metric, a[i + lane], b[i + lane]);
        }
    }
    for (; i < dim; i++) {
        sum += portable_int_term(type, metric, a[i], b[i]);
    }
    return metric != OMENDB_L2 && type == OMENDB_I8 ? (double)(int32_t)sum : (double)sum;
}

KERNELS_INLINE double portable_sum(omendb_scalar type, omendb_metric metric, const void *a,
                                   const void *b, size_t dim)
{
    return type == OMENDB_I8 || type == OMENDB_U8
               ? portable_int_sum(type, metric, a, b, dim)
               : (double)portable_float_sum(type, metric, a, b, dim);
}

/* query_norm is read under cosine only. */
KERNELS_INLINE float portable_distance(omendb_scalar type, omendb_metric metric, const void *query,
                                       const void *row, size_t dim, double query_norm)
{
    const double sum = portable_sum(type, metric, query, row, dim);

    if (metric == OMENDB_L2) {
        return (float)sum;
    }
    if (metric == OMENDB_INNER_PRODUCT) {
        return (float)(0.0 - sum);
    }
    return kernels_cosine(sum, query_norm, portable_sum(type, metric, row, row, dim));
}

KERNELS_INLINE void portable_any_many(omendb_scalar type, omendb_metric metric, const void *query,
                                      const void *const *rows, size_t count, size_t dim, float *out)
{
    const double query_norm =
        metric == OMENDB_COSINE ? portable_sum(type, metric, query, query, dim) : 0.0;
    size_t i;

    for (i = 0; i < count; i++) {
        out[i] = portable_distance(type, metric, query, rows[i], dim, query_norm);
    }
}

KERNELS_INLINE float portable_any_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                       const void *b, size_t dim)
{
    float distance;

    portable_any_many(type, metric, a, &b, 1, dim, &distance);
    return distance;
}

/* Set bits by adding neighbours of 1, 2 and 4 bits; the multiplication adds the eight bytes. */
KERNELS_INLINE uint32_t portable_set_bits(uint64_t word)
{
    word -= word >> 1 & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (uint32_t)(word * 0x0101010101010101u >> 56);
}

static float portable_hamming_pair(const void *a, const void *b, size_t dim)
{
    const unsigned char *x = a, *y = b;
    const size_t bytes = (dim + 7) / 8;
    uint32_t sum = 0;
    size_t i;

    for (i = 0; i < bytes; i += 8) {
        const size_t length = bytes - i < 8 ? bytes - i : 8;
        uint64_t left = 0, right = 0;
        memcpy(&left, x + i, length);
        memcpy(&right, y + i, length);
        sum += portable_set_bits(left ^ right);
    }
    return (float)sum;
}

static void portable_hamming_many(const void *query, const void *const *rows, size_t count,
                                  size_t dim, float *out)
{
    size_t i;

    for (i = 0; i < count; i++) {
        out[i] = portable_hamming_pair(query, rows[i], dim);
    }
}

KERNELS_DEFINE_TYPE(, portable, any, f32, OMENDB_F32)
KERNELS_DEFINE_TYPE(, portable, any, f16, OMENDB_F16)
KERNELS_DEFINE_TYPE(, portable, any, bf16, OMENDB_BF16)
KERNELS_DEFINE_TYPE(, portable, any, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(, portable, any, u8, OMENDB_U8)

OMENDB_INTERNAL const struct kernel_table *kernels_scalar_table(void)
{
    static const struct kernel_table table = {
        "scalar",
        {
            [OMENDB_F32] = KERNELS_ROW(portable, f32),
            [OMENDB_F16] = KERNELS_ROW(portable, f16),
            [OMENDB_BF16] = KERNELS_ROW(portable, bf16),
            [OMENDB_I8] = KERNELS_ROW(portable, i8),
            [OMENDB_U8] = KERNELS_ROW(portable, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(portable),
        },
    };

    return &table;
}

#undef PORTABLE_BLOCK
