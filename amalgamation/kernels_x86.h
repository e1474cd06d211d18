/* kernels_x86.h: what the AVX2 and the AVX-512 kernels share: the last steps after the sums.
 *
 * Four rows end together: their four vectors of partial sums become one vector of four totals,
 * which becomes four distances. A single pair takes the same way with the same vector four times,
 * so that the additions happen in the same order and the bits agree. */
#ifndef OMENDB_KERNELS_X86_H
#define OMENDB_KERNELS_X86_H

#include "kernels.h"

#if KERNELS_X86

#include <stdbool.h>
#include <string.h>

/* A test may compile these files over an emulation of the intrinsics, which it includes before. */
#if !defined(KERNELS_EMULATED_X86)
#include <immintrin.h>
#define KERNELS_AVX2 __attribute__((target("avx2,fma,f16c,popcnt")))
#define KERNELS_AVX512                                                                             \
    __attribute__((target("avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512dq,avx512vl")))
#define KERNELS_AVX512VNNI                                                                         \
    __attribute__((target("avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#else
#define KERNELS_AVX2
#define KERNELS_AVX512
#define KERNELS_AVX512VNNI
#endif

/* What a row's additions leave: partial sums of the metric's terms, and under cosine of the row's
 * squares. */
struct x86_float_sums {
    __m256 terms, squares;
};

struct x86_int_sums {
    __m256i terms, squares;
};

/* The totals of four vectors. */
KERNELS_AVX2 KERNELS_INLINE __m128 x86_add_floats(__m256 a, __m256 b, __m256 c, __m256 d)
{
    const __m256 halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));

    return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

KERNELS_AVX2 KERNELS_INLINE __m128i x86_add_ints(__m256i a, __m256i b, __m256i c, __m256i d)
{
    const __m256i halves = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));

    return _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

/* Unsigned to f32 with one rounding: both halves and the shifted one are exact. */
KERNELS_AVX2 KERNELS_INLINE __m128 x86_unsigned_to_floats(__m128i totals)
{
    const __m128 high = _mm_cvtepi32_ps(_mm_srli_epi32(totals, 16));
    const __m128 low = _mm_cvtepi32_ps(_mm_and_si128(totals, _mm_set1_epi32(0xffff)));

    return _mm_add_ps(_mm_mul_ps(high, _mm_set1_ps(65536.0f)), low);
}

KERNELS_AVX2 KERNELS_INLINE __m256d x86_unsigned_to_doubles(__m128i totals)
{
    const __m128i moved = _mm_xor_si128(totals, _mm_set1_epi32((int)0x80000000u));

    return _mm256_add_pd(_mm256_cvtepi32_pd(moved), _mm256_set1_pd(2147483648.0));
}

/* Four times kernels_cosine. */
KERNELS_AVX2 KERNELS_INLINE __m128 x86_cosines(__m256d dots, __m256d row_norms, double query_norm)
{
    const __m256d one = _mm256_set1_pd(1.0);
    const __m256d product = _mm256_mul_pd(row_norms, _mm256_set1_pd(query_norm));
    const __m256d positive = _mm256_cmp_pd(product, _mm256_setzero_pd(), _CMP_GT_OQ);
    __m256d distance = _mm256_sub_pd(one, _mm256_div_pd(dots, _mm256_sqrt_pd(product)));

    distance = _mm256_max_pd(distance, _mm256_setzero_pd());
    distance = _mm256_min_pd(distance, _mm256_set1_pd(2.0));
    return _mm256_cvtpd_ps(_mm256_blendv_pd(one, distance, positive));
}

/* Four distances out of the sums of four rows. query_norm is read under cosine only. */
KERNELS_AVX2 KERNELS_INLINE __m128 x86_finish_floats(omendb_metric metric, struct x86_float_sums a,
                                                     struct x86_float_sums b,
                                                     struct x86_float_sums c,
                                                     struct x86_float_sums d, double query_norm)
{
    const __m128 totals = x86_add_floats(a.terms, b.terms, c.terms, d.terms);

    if (metric == OMENDB_L2) {
        return totals;
    }
    if (metric == OMENDB_INNER_PRODUCT) {
        return _mm_sub_ps(_mm_setzero_ps(), totals);
    }
    return x86_cosines(_mm256_cvtps_pd(totals),
                       _mm256_cvtps_pd(x86_add_floats(a.squares, b.squares, c.squares, d.squares)),
                       query_norm);
}

/* query_bias is added to the dot products, for kernels that shift a sign. */
KERNELS_AVX2 KERNELS_INLINE __m128 x86_finish_ints(omendb_scalar type, omendb_metric metric,
                                                   struct x86_int_sums a, struct x86_int_sums b,
                                                   struct x86_int_sums c, struct x86_int_sums d,
                                                   uint32_t query_bias, double query_norm)
{
    const __m128i sums = x86_add_ints(a.terms, b.terms, c.terms, d.terms);
    const __m128i totals = _mm_add_epi32(sums, _mm_set1_epi32((int)query_bias));
    __m128 floats;

    if (metric == OMENDB_COSINE) {
        const __m128i squares = x86_add_ints(a.squares, b.squares, c.squares, d.squares);
        return x86_cosines(type == OMENDB_I8 ? _mm256_cvtepi32_pd(totals)
                                             : x86_unsigned_to_doubles(totals),
                           x86_unsigned_to_doubles(squares), query_norm);
    }
    if (metric == OMENDB_L2 || type == OMENDB_U8) {
        floats = x86_unsigned_to_floats(totals);
    } else {
        floats = _mm_cvtepi32_ps(totals);
    }
    return metric == OMENDB_L2 ? floats : _mm_sub_ps(_mm_setzero_ps(), floats);
}

/* The squared norm of a vector from the partial sums of its squares. */
KERNELS_AVX2 KERNELS_INLINE double x86_norm_of_floats(__m256 squares)
{
    return (double)_mm_cvtss_f32(x86_add_floats(squares, squares, squares, squares));
}

KERNELS_AVX2 KERNELS_INLINE double x86_norm_of_ints(__m256i squares)
{
    const __m128i totals = x86_add_ints(squares, squares, squares, squares);

    return (double)(uint32_t)_mm_cvtsi128_si32(totals);
}

/* The distance of a pair; `squares` of its first vector are read under cosine only. */
KERNELS_AVX2 KERNELS_INLINE float x86_finish_float(omendb_metric metric, struct x86_float_sums sums,
                                                   __m256 squares)
{
    const __m128 totals = x86_add_floats(sums.terms, sums.squares, squares, squares);
    const float total = _mm_cvtss_f32(totals);

    if (metric == OMENDB_COSINE) {
        return kernels_cosine((double)total, (double)_mm_cvtss_f32(_mm_movehdup_ps(totals)),
                              (double)_mm_cvtss_f32(_mm_movehl_ps(totals, totals)));
    }
    return metric == OMENDB_L2 ? total : 0.0f - total;
}

KERNELS_AVX2 KERNELS_INLINE float x86_finish_int(omendb_scalar type, omendb_metric metric,
                                                 struct x86_int_sums sums, uint32_t query_bias,
                                                 __m256i squares)
{
    const __m128i totals = x86_add_ints(sums.terms, sums.squares, squares, squares);
    const uint32_t sum = (uint32_t)_mm_cvtsi128_si32(totals) + query_bias;
    const bool is_signed = type == OMENDB_I8 && metric != OMENDB_L2;
    const double total = is_signed ? (double)(int32_t)sum : (double)sum;

    if (metric == OMENDB_COSINE) {
        return kernels_cosine(total, (double)(uint32_t)_mm_extract_epi32(totals, 1),
                              (double)(uint32_t)_mm_extract_epi32(totals, 2));
    }
    return (float)(metric == OMENDB_L2 ? total : 0.0 - total);
}

/* The first `count` of four distances; all four if there are more. */
KERNELS_AVX2 KERNELS_INLINE void x86_store(float *out, size_t count, __m128 distances)
{
    float copy[4];

    if (count >= 4) {
        _mm_storeu_ps(out, distances);
        return;
    }
    _mm_storeu_ps(copy, distances);
    memcpy(out, copy, count * sizeof *out);
}

#endif
#endif
