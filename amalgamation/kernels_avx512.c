/* kernels_avx512.c: AVX-512 F, BW, DQ and VL (Skylake-X, Zen 4), and a second level with VNNI.
 *
 * What binds: two 64-byte loads and, on cores with both units, two FMAs of latency 4 a cycle. 32
 * registers hold four rows of four chains each, which a single pair uses too, so no halves are
 * needed for equal bits (see kernels_avx2.c). Rests are masked loads, which neither read nor fault
 * past the end.
 *
 * VNNI's vpdpbusd multiplies unsigned by signed bytes and adds four products to a 32-bit lane
 * without saturation; two a cycle on two units. With ^ for flipping the top bit, which is adding
 * 128 to a signed byte or taking 128 from an unsigned one: dot of i8   (r^) . q - 128 sum q of u8
 * q . (r^) + 128 sum q squares i8  (r^) . r - 128 sum r         of u8   r . (r^) + 128 sum r L2 d =
 * |q - r| unsigned; d . (d^) + 128 sum d, sums again by vpdpbusd with ones All modulo 2^32, in
 * which the results fit. The query's sum is taken once a call.
 *
 * Rejected: AVX512_BF16's dot product, which Intel's server cores run at half the rate of FMA,
 * which flushes subnormals, and whose rounding differs; AVX512_FP16, whose sums in half precision
 * would break the error bound; VPOPCNTDQ, which would need one more level, while counting nibbles
 * by vpshufb keeps up with memory. */
#include "kernels_x86.h"

#if KERNELS_X86

#define AVX512_INLINE     KERNELS_AVX512 KERNELS_INLINE
#define AVX512VNNI_INLINE KERNELS_AVX512VNNI KERNELS_INLINE
#define AVX512_BLOCK      64 /* elements a step of all kernels */

/* The first `count` (0 to 63) bits. */
AVX512_INLINE uint64_t avx512_first(size_t count)
{
    return ((uint64_t)1 << count) - 1;
}

/* 64 elements; for bf16 the even and the odd ones of each half apart. */
struct avx512_floats {
    __m512 a, b, c, d;
};

AVX512_INLINE struct avx512_floats avx512_split(__m512i low, __m512i high)
{
    const __m512i odd = _mm512_set1_epi32((int)0xffff0000u);
    struct avx512_floats out;

    out.a = _mm512_castsi512_ps(_mm512_slli_epi32(low, 16));
    out.b = _mm512_castsi512_ps(_mm512_and_si512(low, odd));
    out.c = _mm512_castsi512_ps(_mm512_slli_epi32(high, 16));
    out.d = _mm512_castsi512_ps(_mm512_and_si512(high, odd));
    return out;
}

AVX512_INLINE __m512i avx512_load64(const unsigned char *from)
{
    return _mm512_loadu_si512((const void *)from);
}

AVX512_INLINE __m256i avx512_load32(const unsigned char *from)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

AVX512_INLINE struct avx512_floats avx512_load(omendb_scalar type, const void *vector, size_t i)
{
    const unsigned char *from = (const unsigned char *)vector + i * (type == OMENDB_F32 ? 4 : 2);
    struct avx512_floats out;

    if (type == OMENDB_F32) {
        out.a = _mm512_castsi512_ps(avx512_load64(from));
        out.b = _mm512_castsi512_ps(avx512_load64(from + 64));
        out.c = _mm512_castsi512_ps(avx512_load64(from + 128));
        out.d = _mm512_castsi512_ps(avx512_load64(from + 192));
    } else if (type == OMENDB_F16) {
        out.a = _mm512_cvtph_ps(avx512_load32(from));
        out.b = _mm512_cvtph_ps(avx512_load32(from + 32));
        out.c = _mm512_cvtph_ps(avx512_load32(from + 64));
        out.d = _mm512_cvtph_ps(avx512_load32(from + 96));
    } else {
        out = avx512_split(avx512_load64(from), avx512_load64(from + 64));
    }
    return out;
}

/* The last dim % AVX512_BLOCK elements, and zeros. */
AVX512_INLINE struct avx512_floats avx512_load_last(omendb_scalar type, const void *vector,
                                                    size_t dim)
{
    const size_t count = dim % AVX512_BLOCK;
    const uint64_t mask = avx512_first(count);
    const unsigned char *from =
        (const unsigned char *)vector + (dim - count) * (type == OMENDB_F32 ? 4 : 2);
    struct avx512_floats out;

    if (type == OMENDB_F32) {
        out.a = _mm512_castsi512_ps(_mm512_maskz_loadu_epi32((__mmask16)mask, from));
        out.b = _mm512_castsi512_ps(_mm512_maskz_loadu_epi32((__mmask16)(mask >> 16), from + 64));
        out.c = _mm512_castsi512_ps(_mm512_maskz_loadu_epi32((__mmask16)(mask >> 32), from + 128));
        out.d = _mm512_castsi512_ps(_mm512_maskz_loadu_epi32((__mmask16)(mask >> 48), from + 192));
    } else if (type == OMENDB_F16) {
        out.a = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)mask, from));
        out.b = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)(mask >> 16), from + 32));
        out.c = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)(mask >> 32), from + 64));
        out.d = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)(mask >> 48), from + 96));
    } else {
        out = avx512_split(_mm512_maskz_loadu_epi16((__mmask32)mask, from),
                           _mm512_maskz_loadu_epi16((__mmask32)(mask >> 32), from + 64));
    }
    return out;
}

/* Four chains of terms, or under cosine two of products and two of the row's squares. */
AVX512_INLINE struct avx512_floats avx512_step(omendb_metric metric, struct avx512_floats sums,
                                               struct avx512_floats query, struct avx512_floats row)
{
    if (metric == OMENDB_L2) {
        const __m512 a = _mm512_sub_ps(query.a, row.a), b = _mm512_sub_ps(query.b, row.b);
        const __m512 c = _mm512_sub_ps(query.c, row.c), d = _mm512_sub_ps(query.d, row.d);
        sums.a = _mm512_fmadd_ps(a, a, sums.a);
        sums.b = _mm512_fmadd_ps(b, b, sums.b);
        sums.c = _mm512_fmadd_ps(c, c, sums.c);
        sums.d = _mm512_fmadd_ps(d, d, sums.d);
    } else if (metric == OMENDB_INNER_PRODUCT) {
        sums.a = _mm512_fmadd_ps(query.a, row.a, sums.a);
        sums.b = _mm512_fmadd_ps(query.b, row.b, sums.b);
        sums.c = _mm512_fmadd_ps(query.c, row.c, sums.c);
        sums.d = _mm512_fmadd_ps(query.d, row.d, sums.d);
    } else {
        sums.a = _mm512_fmadd_ps(query.a, row.a, sums.a);
        sums.b = _mm512_fmadd_ps(query.b, row.b, sums.b);
        sums.c = _mm512_fmadd_ps(row.a, row.a, sums.c);
        sums.d = _mm512_fmadd_ps(row.b, row.b, sums.d);
        sums.a = _mm512_fmadd_ps(query.c, row.c, sums.a);
        sums.b = _mm512_fmadd_ps(query.d, row.d, sums.b);
        sums.c = _mm512_fmadd_ps(row.c, row.c, sums.c);
        sums.d = _mm512_fmadd_ps(row.d, row.d, sums.d);
    }
    return sums;
}

AVX512_INLINE __m256 avx512_fold_floats(__m512 a, __m512 b)
{
    const __m512 sum = _mm512_add_ps(a, b);
    const __m512d pairs = _mm512_castps_pd(sum);

    return _mm256_add_ps(_mm512_castps512_ps256(sum),
                         _mm256_castpd_ps(_mm512_extractf64x4_pd(pairs, 1)));
}

AVX512_INLINE struct x86_float_sums avx512_join(omendb_metric metric, struct avx512_floats sums)
{
    struct x86_float_sums out;

    if (metric == OMENDB_COSINE) {
        out.terms = avx512_fold_floats(sums.a, sums.b);
        out.squares = avx512_fold_floats(sums.c, sums.d);
    } else {
        out.terms =
            avx512_fold_floats(_mm512_add_ps(sums.a, sums.b), _mm512_add_ps(sums.c, sums.d));
        out.squares = _mm256_setzero_ps();
    }
    return out;
}

AVX512_INLINE struct avx512_floats avx512_zero_chains(void)
{
    const struct avx512_floats zero = {_mm512_setzero_ps(), _mm512_setzero_ps(),
                                       _mm512_setzero_ps(), _mm512_setzero_ps()};

    return zero;
}

/* The squares of the first vector of a pair, in the order in which a row's are added. */
struct avx512_squares {
    __m512 c, d;
};

AVX512_INLINE struct avx512_squares
avx512_add_squares(omendb_metric metric, struct avx512_squares sums, struct avx512_floats block)
{
    if (metric == OMENDB_COSINE) {
        sums.c = _mm512_fmadd_ps(block.a, block.a, sums.c);
        sums.d = _mm512_fmadd_ps(block.b, block.b, sums.d);
        sums.c = _mm512_fmadd_ps(block.c, block.c, sums.c);
        sums.d = _mm512_fmadd_ps(block.d, block.d, sums.d);
    }
    return sums;
}

/* Also stores the sums of the squares of `a`, under cosine. */
AVX512_INLINE struct x86_float_sums avx512_float_sums(omendb_scalar type, omendb_metric metric,
                                                      const void *a, const void *b, size_t dim,
                                                      __m256 *squares_of_a)
{
    struct avx512_squares own = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    struct avx512_floats sums = avx512_zero_chains(), block;
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        block = avx512_load(type, a, i);
        sums = avx512_step(metric, sums, block, avx512_load(type, b, i));
        own = avx512_add_squares(metric, own, block);
    }
    if (i < dim) {
        block = avx512_load_last(type, a, dim);
        sums = avx512_step(metric, sums, block, avx512_load_last(type, b, dim));
        own = avx512_add_squares(metric, own, block);
    }
    *squares_of_a = avx512_fold_floats(own.c, own.d);
    return avx512_join(metric, sums);
}

AVX512_INLINE float avx512_float_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                      const void *b, size_t dim)
{
    __m256 squares;
    const struct x86_float_sums sums = avx512_float_sums(type, metric, a, b, dim, &squares);

    return x86_finish_float(metric, sums, squares);
}

AVX512_INLINE __m128 avx512_float_four(omendb_scalar type, omendb_metric metric, const void *query,
                                       double query_norm, const void *const *rows, size_t dim)
{
    const void *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct avx512_floats a = avx512_zero_chains(), b = a, c = a, d = a;
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        const struct avx512_floats block = avx512_load(type, query, i);
        a = avx512_step(metric, a, block, avx512_load(type, row_a, i));
        b = avx512_step(metric, b, block, avx512_load(type, row_b, i));
        c = avx512_step(metric, c, block, avx512_load(type, row_c, i));
        d = avx512_step(metric, d, block, avx512_load(type, row_d, i));
    }
    if (i < dim) {
        const struct avx512_floats block = avx512_load_last(type, query, dim);
        a = avx512_step(metric, a, block, avx512_load_last(type, row_a, dim));
        b = avx512_step(metric, b, block, avx512_load_last(type, row_b, dim));
        c = avx512_step(metric, c, block, avx512_load_last(type, row_c, dim));
        d = avx512_step(metric, d, block, avx512_load_last(type, row_d, dim));
    }
    return x86_finish_floats(metric, avx512_join(metric, a), avx512_join(metric, b),
                             avx512_join(metric, c), avx512_join(metric, d), query_norm);
}

AVX512_INLINE void avx512_float_many(omendb_scalar type, omendb_metric metric, const void *query,
                                     const void *const *rows, size_t count, size_t dim, float *out)
{
    double query_norm = 0.0;
    __m256 squares;
    size_t i;

    if (metric == OMENDB_COSINE) {
        (void)avx512_float_sums(type, metric, query, query, dim, &squares);
        query_norm = x86_norm_of_floats(squares);
    }
    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        x86_store(out + i, count - i,
                  avx512_float_four(type, metric, query, query_norm, group, dim));
    }
}

/* Sums of 16 lanes: of terms, and under cosine of the row's squares. */
struct avx512_int_sums {
    __m512i terms, squares;
};

/* 64 bytes as 16-bit integers. */
struct avx512_ints {
    __m512i low, high;
};

AVX512_INLINE struct avx512_ints avx512_widen(omendb_scalar type, __m256i low, __m256i high)
{
    struct avx512_ints out;

    if (type == OMENDB_I8) {
        out.low = _mm512_cvtepi8_epi16(low);
        out.high = _mm512_cvtepi8_epi16(high);
    } else {
        out.low = _mm512_cvtepu8_epi16(low);
        out.high = _mm512_cvtepu8_epi16(high);
    }
    return out;
}

AVX512_INLINE struct avx512_ints avx512_load_bytes(omendb_scalar type, const unsigned char *vector,
                                                   size_t i)
{
    return avx512_widen(type, avx512_load32(vector + i), avx512_load32(vector + i + 32));
}

AVX512_INLINE struct avx512_ints avx512_load_last_bytes(omendb_scalar type,
                                                        const unsigned char *vector, size_t dim)
{
    const size_t count = dim % AVX512_BLOCK;
    const uint64_t mask = avx512_first(count);
    const unsigned char *from = vector + dim - count;

    return avx512_widen(type, _mm256_maskz_loadu_epi8((__mmask32)mask, from),
                        _mm256_maskz_loadu_epi8((__mmask32)(mask >> 32), from + 32));
}

AVX512_INLINE struct avx512_int_sums avx512_int_step(omendb_metric metric,
                                                     struct avx512_int_sums sums,
                                                     struct avx512_ints query,
                                                     struct avx512_ints row)
{
    __m512i low, high;

    if (metric == OMENDB_L2) {
        low = _mm512_sub_epi16(query.low, row.low);
        high = _mm512_sub_epi16(query.high, row.high);
        low = _mm512_madd_epi16(low, low);
        high = _mm512_madd_epi16(high, high);
    } else {
        low = _mm512_madd_epi16(query.low, row.low);
        high = _mm512_madd_epi16(query.high, row.high);
    }
    sums.terms = _mm512_add_epi32(sums.terms, _mm512_add_epi32(low, high));
    if (metric == OMENDB_COSINE) {
        low = _mm512_madd_epi16(row.low, row.low);
        high = _mm512_madd_epi16(row.high, row.high);
        sums.squares = _mm512_add_epi32(sums.squares, _mm512_add_epi32(low, high));
    }
    return sums;
}

AVX512_INLINE struct avx512_int_sums avx512_zero_sums(void)
{
    const struct avx512_int_sums zero = {_mm512_setzero_si512(), _mm512_setzero_si512()};

    return zero;
}

AVX512_INLINE __m256i avx512_fold_ints(__m512i sum)
{
    return _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
}

AVX512_INLINE struct x86_int_sums avx512_join_ints(struct avx512_int_sums sums)
{
    const struct x86_int_sums out = {avx512_fold_ints(sums.terms), avx512_fold_ints(sums.squares)};

    return out;
}

AVX512_INLINE __m512i avx512_add_int_squares(omendb_metric metric, __m512i sum,
                                             struct avx512_ints block)
{
    if (metric != OMENDB_COSINE) {
        return sum;
    }
    return _mm512_add_epi32(sum, _mm512_add_epi32(_mm512_madd_epi16(block.low, block.low),
                                                  _mm512_madd_epi16(block.high, block.high)));
}

/* Also stores the sums of the squares of `a`, under cosine. */
AVX512_INLINE struct x86_int_sums avx512_int_sums(omendb_scalar type, omendb_metric metric,
                                                  const void *a, const void *b, size_t dim,
                                                  __m256i *squares_of_a)
{
    struct avx512_int_sums sums = avx512_zero_sums();
    __m512i own = _mm512_setzero_si512();
    struct avx512_ints block;
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        block = avx512_load_bytes(type, a, i);
        sums = avx512_int_step(metric, sums, block, avx512_load_bytes(type, b, i));
        own = avx512_add_int_squares(metric, own, block);
    }
    if (i < dim) {
        block = avx512_load_last_bytes(type, a, dim);
        sums = avx512_int_step(metric, sums, block, avx512_load_last_bytes(type, b, dim));
        own = avx512_add_int_squares(metric, own, block);
    }
    *squares_of_a = avx512_fold_ints(own);
    return avx512_join_ints(sums);
}

AVX512_INLINE float avx512_int_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                    const void *b, size_t dim)
{
    __m256i squares;
    const struct x86_int_sums sums = avx512_int_sums(type, metric, a, b, dim, &squares);

    return x86_finish_int(type, metric, sums, 0, squares);
}

AVX512_INLINE __m128 avx512_int_four(omendb_scalar type, omendb_metric metric, const void *query,
                                     double query_norm, const void *const *rows, size_t dim)
{
    const void *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct avx512_int_sums a = avx512_zero_sums(), b = a, c = a, d = a;
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        const struct avx512_ints block = avx512_load_bytes(type, query, i);
        a = avx512_int_step(metric, a, block, avx512_load_bytes(type, row_a, i));
        b = avx512_int_step(metric, b, block, avx512_load_bytes(type, row_b, i));
        c = avx512_int_step(metric, c, block, avx512_load_bytes(type, row_c, i));
        d = avx512_int_step(metric, d, block, avx512_load_bytes(type, row_d, i));
    }
    if (i < dim) {
        const struct avx512_ints block = avx512_load_last_bytes(type, query, dim);
        a = avx512_int_step(metric, a, block, avx512_load_last_bytes(type, row_a, dim));
        b = avx512_int_step(metric, b, block, avx512_load_last_bytes(type, row_b, dim));
        c = avx512_int_step(metric, c, block, avx512_load_last_bytes(type, row_c, dim));
        d = avx512_int_step(metric, d, block, avx512_load_last_bytes(type, row_d, dim));
    }
    return x86_finish_ints(type, metric, avx512_join_ints(a), avx512_join_ints(b),
                           avx512_join_ints(c), avx512_join_ints(d), 0, query_norm);
}

AVX512_INLINE void avx512_int_many(omendb_scalar type, omendb_metric metric, const void *query,
                                   const void *const *rows, size_t count, size_t dim, float *out)
{
    double query_norm = 0.0;
    __m256i squares;
    size_t i;

    if (metric == OMENDB_COSINE) {
        (void)avx512_int_sums(type, metric, query, query, dim, &squares);
        query_norm = x86_norm_of_ints(squares);
    }
    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        x86_store(out + i, count - i, avx512_int_four(type, metric, query, query_norm, group, dim));
    }
}

/* Three sums of 16 lanes of vpdpbusd. bytes: sums of the differences or of the row's bytes, which
 * complete the sums taken with a flipped sign. */
struct avx512vnni_sums {
    __m512i terms, squares, bytes;
};

AVX512VNNI_INLINE struct avx512vnni_sums avx512vnni_step(omendb_scalar type, omendb_metric metric,
                                                         struct avx512vnni_sums sums, __m512i query,
                                                         __m512i row)
{
    const __m512i flip = _mm512_set1_epi8((char)-128), ones = _mm512_set1_epi8(1);

    if (metric == OMENDB_L2) {
        const __m512i difference =
            type == OMENDB_I8
                ? _mm512_sub_epi8(_mm512_max_epi8(query, row), _mm512_min_epi8(query, row))
                : _mm512_sub_epi8(_mm512_max_epu8(query, row), _mm512_min_epu8(query, row));
        sums.terms =
            _mm512_dpbusd_epi32(sums.terms, difference, _mm512_xor_si512(difference, flip));
        sums.bytes = _mm512_dpbusd_epi32(sums.bytes, difference, ones);
        return sums;
    }
    if (type == OMENDB_I8) {
        const __m512i flipped = _mm512_xor_si512(row, flip);
        sums.terms = _mm512_dpbusd_epi32(sums.terms, flipped, query);
        if (metric == OMENDB_COSINE) {
            sums.squares = _mm512_dpbusd_epi32(sums.squares, flipped, row);
            sums.bytes = _mm512_dpbusd_epi32(sums.bytes, ones, row);
        }
    } else {
        const __m512i flipped = _mm512_xor_si512(row, flip);
        sums.terms = _mm512_dpbusd_epi32(sums.terms, query, flipped);
        if (metric == OMENDB_COSINE) {
            sums.squares = _mm512_dpbusd_epi32(sums.squares, row, flipped);
            sums.bytes = _mm512_dpbusd_epi32(sums.bytes, row, ones);
        }
    }
    return sums;
}

AVX512VNNI_INLINE struct x86_int_sums avx512vnni_join(omendb_scalar type, omendb_metric metric,
                                                      struct avx512vnni_sums sums)
{
    const __m512i shifted = _mm512_slli_epi32(sums.bytes, 7);
    struct x86_int_sums out;

    if (metric == OMENDB_L2) {
        sums.terms = _mm512_add_epi32(sums.terms, shifted);
    } else if (metric == OMENDB_COSINE) {
        sums.squares = type == OMENDB_I8 ? _mm512_sub_epi32(sums.squares, shifted)
                                         : _mm512_add_epi32(sums.squares, shifted);
    }
    out.terms = avx512_fold_ints(sums.terms);
    out.squares = avx512_fold_ints(sums.squares);
    return out;
}

AVX512VNNI_INLINE struct avx512vnni_sums avx512vnni_zero(void)
{
    const struct avx512vnni_sums zero = {_mm512_setzero_si512(), _mm512_setzero_si512(),
                                         _mm512_setzero_si512()};

    return zero;
}

AVX512VNNI_INLINE __m512i avx512vnni_load_last(const unsigned char *vector, size_t dim)
{
    const size_t count = dim % AVX512_BLOCK;

    return _mm512_maskz_loadu_epi8((__mmask64)avx512_first(count), vector + dim - count);
}

AVX512VNNI_INLINE struct avx512vnni_sums avx512vnni_sums(omendb_scalar type, omendb_metric metric,
                                                         const unsigned char *a,
                                                         const unsigned char *b, size_t dim)
{
    struct avx512vnni_sums sums = avx512vnni_zero();
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        sums = avx512vnni_step(type, metric, sums, avx512_load64(a + i), avx512_load64(b + i));
    }
    if (i < dim) {
        sums = avx512vnni_step(type, metric, sums, avx512vnni_load_last(a, dim),
                               avx512vnni_load_last(b, dim));
    }
    return sums;
}

/* What a call needs to know of its query. */
struct avx512vnni_query {
    uint32_t bias; /* completes the dot products */
    __m256i squares;
};

AVX512VNNI_INLINE struct avx512vnni_query
avx512vnni_prepare(omendb_scalar type, omendb_metric metric, const void *query, size_t dim)
{
    struct avx512vnni_query out = {0, _mm256_setzero_si256()};
    struct avx512vnni_sums own;
    __m256i bytes;
    uint32_t total;

    if (metric == OMENDB_L2) {
        return out;
    }
    own = avx512vnni_sums(type, OMENDB_COSINE, query, query, dim);
    bytes = avx512_fold_ints(own.bytes);
    total = (uint32_t)_mm_cvtsi128_si32(x86_add_ints(bytes, bytes, bytes, bytes));
    out.bias = type == OMENDB_I8 ? 0u - 128u * total : 128u * total;
    out.squares = avx512vnni_join(type, OMENDB_COSINE, own).squares;
    return out;
}

AVX512VNNI_INLINE float avx512vnni_int_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                            const void *b, size_t dim)
{
    const struct avx512vnni_query query = avx512vnni_prepare(type, metric, a, dim);
    const struct x86_int_sums sums =
        avx512vnni_join(type, metric, avx512vnni_sums(type, metric, a, b, dim));

    return x86_finish_int(type, metric, sums, query.bias, query.squares);
}

AVX512VNNI_INLINE __m128 avx512vnni_int_four(omendb_scalar type, omendb_metric metric,
                                             const unsigned char *query, uint32_t query_bias,
                                             double query_norm, const void *const *rows, size_t dim)
{
    const unsigned char *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct avx512vnni_sums a = avx512vnni_zero(), b = a, c = a, d = a;
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        const __m512i block = avx512_load64(query + i);
        a = avx512vnni_step(type, metric, a, block, avx512_load64(row_a + i));
        b = avx512vnni_step(type, metric, b, block, avx512_load64(row_b + i));
        c = avx512vnni_step(type, metric, c, block, avx512_load64(row_c + i));
        d = avx512vnni_step(type, metric, d, block, avx512_load64(row_d + i));
    }
    if (i < dim) {
        const __m512i block = avx512vnni_load_last(query, dim);
        a = avx512vnni_step(type, metric, a, block, avx512vnni_load_last(row_a, dim));
        b = avx512vnni_step(type, metric, b, block, avx512vnni_load_last(row_b, dim));
        c = avx512vnni_step(type, metric, c, block, avx512vnni_load_last(row_c, dim));
        d = avx512vnni_step(type, metric, d, block, avx512vnni_load_last(row_d, dim));
    }
    return x86_finish_ints(type, metric, avx512vnni_join(type, metric, a),
                           avx512vnni_join(type, metric, b), avx512vnni_join(type, metric, c),
                           avx512vnni_join(type, metric, d), query_bias, query_norm);
}

AVX512VNNI_INLINE void avx512vnni_int_many(omendb_scalar type, omendb_metric metric,
                                           const void *query, const void *const *rows, size_t count,
                                           size_t dim, float *out)
{
    const struct avx512vnni_query prepared = avx512vnni_prepare(type, metric, query, dim);
    const double query_norm = x86_norm_of_ints(prepared.squares);
    size_t i;

    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        x86_store(out + i, count - i,
                  avx512vnni_int_four(type, metric, query, prepared.bias, query_norm, group, dim));
    }
}

/* Adds the set bits of each 8 bytes: two table look-ups of 4 bits each byte, summed by vpsadbw. */
AVX512_INLINE __m512i avx512_count(__m512i sums, __m512i bits)
{
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i table = _mm512_set4_epi32(0x04030302, 0x03020201, 0x03020201, 0x02010100);
    const __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(bits, nibble));
    const __m512i high =
        _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bits, 4), nibble));

    return _mm512_add_epi64(sums,
                            _mm512_sad_epu8(_mm512_add_epi8(low, high), _mm512_setzero_si512()));
}

KERNELS_AVX512 static float avx512_hamming_pair(const void *a, const void *b, size_t dim)
{
    const unsigned char *x = a, *y = b;
    const size_t bytes = (dim + 7) / 8;
    __m512i sums = _mm512_setzero_si512();
    __m256i folded;
    size_t i;

    for (i = 0; i + 64 <= bytes; i += 64) {
        sums = avx512_count(sums, _mm512_xor_si512(avx512_load64(x + i), avx512_load64(y + i)));
    }
    if (i < bytes) {
        const __mmask64 mask = (__mmask64)avx512_first(bytes - i);
        sums = avx512_count(sums, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, x + i),
                                                   _mm512_maskz_loadu_epi8(mask, y + i)));
    }
    folded = avx512_fold_ints(sums); /* the upper halves of the 64-bit sums are zero */
    return (float)_mm_cvtsi128_si32(x86_add_ints(folded, folded, folded, folded));
}

KERNELS_AVX512 static void avx512_hamming_many(const void *query, const void *const *rows,
                                               size_t count, size_t dim, float *out)
{
    size_t i;

    for (i = 0; i < count; i++) {
        out[i] = avx512_hamming_pair(query, rows[i], dim);
    }
}

KERNELS_DEFINE_TYPE(KERNELS_AVX512, avx512, float, f32, OMENDB_F32)
KERNELS_DEFINE_TYPE(KERNELS_AVX512, avx512, float, f16, OMENDB_F16)
KERNELS_DEFINE_TYPE(KERNELS_AVX512, avx512, float, bf16, OMENDB_BF16)
KERNELS_DEFINE_TYPE(KERNELS_AVX512, avx512, int, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(KERNELS_AVX512, avx512, int, u8, OMENDB_U8)
KERNELS_DEFINE_TYPE(KERNELS_AVX512VNNI, avx512vnni, int, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(KERNELS_AVX512VNNI, avx512vnni, int, u8, OMENDB_U8)

OMENDB_INTERNAL const struct kernel_table *kernels_avx512_table(void)
{
    static const struct kernel_table table = {
        "avx512",
        {
            [OMENDB_F32] = KERNELS_ROW(avx512, f32),
            [OMENDB_F16] = KERNELS_ROW(avx512, f16),
            [OMENDB_BF16] = KERNELS_ROW(avx512, bf16),
            [OMENDB_I8] = KERNELS_ROW(avx512, i8),
            [OMENDB_U8] = KERNELS_ROW(avx512, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(avx512),
        },
    };

    return &table;
}

OMENDB_INTERNAL const struct kernel_table *kernels_avx512vnni_table(void)
{
    static const struct kernel_table table = {
        "avx512vnni",
        {
            [OMENDB_F32] = KERNELS_ROW(avx512, f32),
            [OMENDB_F16] = KERNELS_ROW(avx512, f16),
            [OMENDB_BF16] = KERNELS_ROW(avx512, bf16),
            [OMENDB_I8] = KERNELS_ROW(avx512vnni, i8),
            [OMENDB_U8] = KERNELS_ROW(avx512vnni, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(avx512),
        },
    };

    return &table;
}

#undef AVX512_INLINE
#undef AVX512VNNI_INLINE
#undef AVX512_BLOCK

#endif
