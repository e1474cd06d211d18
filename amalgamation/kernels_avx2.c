/* kernels_avx2.c: AVX2 with FMA, F16C and POPCNT: every x86-64 server and desktop since about 2015.
 *
 * What binds, on Zen 3 and on Intel since Haswell: two 32-byte loads and two FMAs of latency 4 a
 * cycle.
 * - f32: one load a vector of the row and a quarter of the query's, one subtraction, one FMA. Four
 * rows with two sums each are the eight chains that keep both FMA units busy; 16 registers hold no
 * more. A single pair needs four chains, since two loads an FMA allow one FMA a cycle.
 * - f16: vcvtph2ps takes the shuffle port as well, so in cache about half of f32's rate an element
 * and the same a byte. bf16: the odd elements are f32s once the lower half is masked off, the even
 * ones once shifted; both vectors are split alike, and no shuffle is needed.
 * - i8 and u8: widened to 16 bits by the load (vpmovsxbw, vpmovzxbw), then vpmaddwd, exact.
 *   Rejected: vpmaddubsw, which saturates at 16 bits for full-range bytes.
 * - bits: popcnt of 64 bits, as fast up to some thousand bits as counting nibbles by vpshufb.
 *
 * Invariant: a row's sums are those of the first half of the blocks plus those of the rest, in two
 * chains each. A pair runs both halves side by side as four chains; four rows run one half after
 * the other. Both add in the same order, so their results are the same bits.
 *
 * The rest of a vector after the last whole block is read by a masked load (f32), or as the last 32
 * bytes of the vector with those already counted cleared; vectors under 32 bytes are copied. */
#include "kernels_x86.h"

#include <stdbool.h>

#if KERNELS_X86

#define AVX2_INLINE KERNELS_AVX2 KERNELS_INLINE
#define AVX2_BLOCK  16 /* elements a step of the float kernels */

/* 32 bytes of zeros, 64 of ones, 64 of zeros: masks that keep the last or the first elements. */
static const int32_t avx2_edges[40] = {0,  0,  0,  0,  0,  0,  0,  0,  -1, -1, -1, -1,
                                       -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

AVX2_INLINE __m256i avx2_load32(const unsigned char *from)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

AVX2_INLINE __m128i avx2_load16(const unsigned char *from)
{
    return _mm_loadu_si128((const __m128i *)(const void *)from);
}

/* The `length` bytes (1 to 31) before `end`, anywhere in an otherwise zero vector. */
AVX2_INLINE __m256i avx2_load_rest(const unsigned char *vector, size_t end, size_t length)
{
    unsigned char copy[32] = {0};

    if (end >= 32) {
        const __m256i keep_last = avx2_load32((const unsigned char *)avx2_edges + length);
        return _mm256_and_si256(keep_last, avx2_load32(vector + end - 32));
    }
    memcpy(copy, vector + end - length, length);
    return avx2_load32(copy);
}

struct avx2_floats {
    __m256 low, high;
};

/* 16 elements of f16 in order, or of bf16 with the even ones in `low` and the odd ones in `high`.
 */
AVX2_INLINE struct avx2_floats avx2_widen(omendb_scalar type, __m256i packed)
{
    struct avx2_floats out;

    if (type == OMENDB_F16) {
        out.low = _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
        out.high = _mm256_cvtph_ps(_mm256_extracti128_si256(packed, 1));
    } else {
        const __m256i odd = _mm256_and_si256(packed, _mm256_set1_epi32((int)0xffff0000u));
        out.low = _mm256_castsi256_ps(_mm256_slli_epi32(packed, 16));
        out.high = _mm256_castsi256_ps(odd);
    }
    return out;
}

AVX2_INLINE struct avx2_floats avx2_load(omendb_scalar type, const void *vector, size_t i)
{
    const unsigned char *from = (const unsigned char *)vector + i * (type == OMENDB_F32 ? 4 : 2);
    struct avx2_floats out;

    if (type == OMENDB_F32) {
        out.low = _mm256_castsi256_ps(avx2_load32(from));
        out.high = _mm256_castsi256_ps(avx2_load32(from + 32));
    } else if (type == OMENDB_F16) {
        out.low = _mm256_cvtph_ps(avx2_load16(from));
        out.high = _mm256_cvtph_ps(avx2_load16(from + 16));
    } else {
        out = avx2_widen(type, avx2_load32(from));
    }
    return out;
}

/* The last dim % AVX2_BLOCK elements, and zeros. */
AVX2_INLINE struct avx2_floats avx2_load_last(omendb_scalar type, const void *vector, size_t dim)
{
    const size_t count = dim % AVX2_BLOCK;
    struct avx2_floats out;

    if (type == OMENDB_F32) {
        const int *from =
            (const int *)(const void *)((const unsigned char *)vector + 4 * (dim - count));
        const unsigned char *keep_first =
            (const unsigned char *)(avx2_edges + 8 + AVX2_BLOCK - count);
        out.low = _mm256_castsi256_ps(_mm256_maskload_epi32(from, avx2_load32(keep_first)));
        out.high =
            _mm256_castsi256_ps(_mm256_maskload_epi32(from + 8, avx2_load32(keep_first + 32)));
    } else {
        out = avx2_widen(type, avx2_load_rest(vector, 2 * dim, 2 * count));
    }
    return out;
}

/* Two chains a row: of terms, or under cosine of products and of the row's squares. */
struct avx2_chains {
    __m256 first, second;
};

AVX2_INLINE struct avx2_chains avx2_step(omendb_metric metric, struct avx2_chains sums,
                                         struct avx2_floats query, struct avx2_floats row)
{
    if (metric == OMENDB_L2) {
        const __m256 low = _mm256_sub_ps(query.low, row.low);
        const __m256 high = _mm256_sub_ps(query.high, row.high);
        sums.first = _mm256_fmadd_ps(low, low, sums.first);
        sums.second = _mm256_fmadd_ps(high, high, sums.second);
    } else if (metric == OMENDB_INNER_PRODUCT) {
        sums.first = _mm256_fmadd_ps(query.low, row.low, sums.first);
        sums.second = _mm256_fmadd_ps(query.high, row.high, sums.second);
    } else {
        sums.first = _mm256_fmadd_ps(query.low, row.low, sums.first);
        sums.second = _mm256_fmadd_ps(row.low, row.low, sums.second);
        sums.first = _mm256_fmadd_ps(query.high, row.high, sums.first);
        sums.second = _mm256_fmadd_ps(row.high, row.high, sums.second);
    }
    return sums;
}

/* One half's sums. */
AVX2_INLINE struct x86_float_sums avx2_join(omendb_metric metric, struct avx2_chains half)
{
    struct x86_float_sums out = {half.first, half.second};

    if (metric != OMENDB_COSINE) {
        out.terms = _mm256_add_ps(half.first, half.second);
        out.squares = _mm256_setzero_ps();
    }
    return out;
}

AVX2_INLINE struct x86_float_sums avx2_add_halves(struct x86_float_sums head,
                                                  struct x86_float_sums tail)
{
    const struct x86_float_sums out = {_mm256_add_ps(head.terms, tail.terms),
                                       _mm256_add_ps(head.squares, tail.squares)};

    return out;
}

AVX2_INLINE struct avx2_chains avx2_zero_chains(void)
{
    const struct avx2_chains zero = {_mm256_setzero_ps(), _mm256_setzero_ps()};

    return zero;
}

/* Where the first half of the blocks ends. */
AVX2_INLINE size_t avx2_middle(size_t dim)
{
    return dim / (2 * AVX2_BLOCK) * AVX2_BLOCK;
}

/* The squares of the first vector of a pair, in the order in which a row's are added. */
AVX2_INLINE __m256 avx2_add_squares(omendb_metric metric, __m256 sum, struct avx2_floats block)
{
    if (metric != OMENDB_COSINE) {
        return sum;
    }
    return _mm256_fmadd_ps(block.high, block.high, _mm256_fmadd_ps(block.low, block.low, sum));
}

/* Also stores the sums of the squares of `a`, under cosine. */
AVX2_INLINE struct x86_float_sums avx2_float_sums(omendb_scalar type, omendb_metric metric,
                                                  const void *a, const void *b, size_t dim,
                                                  __m256 *squares_of_a)
{
    const size_t middle = avx2_middle(dim);
    struct avx2_chains head = avx2_zero_chains(), tail = avx2_zero_chains();
    __m256 own_head = _mm256_setzero_ps(), own_tail = _mm256_setzero_ps();
    struct avx2_floats block;
    size_t i;

    for (i = 0; i < middle; i += AVX2_BLOCK) {
        block = avx2_load(type, a, i);
        head = avx2_step(metric, head, block, avx2_load(type, b, i));
        own_head = avx2_add_squares(metric, own_head, block);
        block = avx2_load(type, a, middle + i);
        tail = avx2_step(metric, tail, block, avx2_load(type, b, middle + i));
        own_tail = avx2_add_squares(metric, own_tail, block);
    }
    if (dim - 2 * middle >= AVX2_BLOCK) {
        block = avx2_load(type, a, 2 * middle);
        tail = avx2_step(metric, tail, block, avx2_load(type, b, 2 * middle));
        own_tail = avx2_add_squares(metric, own_tail, block);
    }
    if (dim % AVX2_BLOCK != 0) {
        block = avx2_load_last(type, a, dim);
        tail = avx2_step(metric, tail, block, avx2_load_last(type, b, dim));
        own_tail = avx2_add_squares(metric, own_tail, block);
    }
    *squares_of_a = _mm256_add_ps(own_head, own_tail);
    return avx2_add_halves(avx2_join(metric, head), avx2_join(metric, tail));
}

AVX2_INLINE float avx2_float_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                  const void *b, size_t dim)
{
    __m256 squares;
    const struct x86_float_sums sums = avx2_float_sums(type, metric, a, b, dim, &squares);

    return x86_finish_float(metric, sums, squares);
}

struct avx2_four {
    struct x86_float_sums a, b, c, d;
};

/* Blocks [begin, end) of four rows, and the rest of the vectors if `with_rest`. */
AVX2_INLINE struct avx2_four avx2_four_rows(omendb_scalar type, omendb_metric metric,
                                            const void *query, const void *const *rows,
                                            size_t begin, size_t end, bool with_rest, size_t dim)
{
    const void *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct avx2_chains a = avx2_zero_chains(), b = a, c = a, d = a;
    struct avx2_four out;
    size_t i;

    for (i = begin; i < end; i += AVX2_BLOCK) {
        const struct avx2_floats block = avx2_load(type, query, i);
        a = avx2_step(metric, a, block, avx2_load(type, row_a, i));
        b = avx2_step(metric, b, block, avx2_load(type, row_b, i));
        c = avx2_step(metric, c, block, avx2_load(type, row_c, i));
        d = avx2_step(metric, d, block, avx2_load(type, row_d, i));
    }
    if (with_rest && dim % AVX2_BLOCK != 0) {
        const struct avx2_floats block = avx2_load_last(type, query, dim);
        a = avx2_step(metric, a, block, avx2_load_last(type, row_a, dim));
        b = avx2_step(metric, b, block, avx2_load_last(type, row_b, dim));
        c = avx2_step(metric, c, block, avx2_load_last(type, row_c, dim));
        d = avx2_step(metric, d, block, avx2_load_last(type, row_d, dim));
    }
    out.a = avx2_join(metric, a);
    out.b = avx2_join(metric, b);
    out.c = avx2_join(metric, c);
    out.d = avx2_join(metric, d);
    return out;
}

AVX2_INLINE __m128 avx2_float_four(omendb_scalar type, omendb_metric metric, const void *query,
                                   double query_norm, const void *const *rows, size_t dim)
{
    const size_t middle = avx2_middle(dim), end = dim - dim % AVX2_BLOCK;
    const struct avx2_four head = avx2_four_rows(type, metric, query, rows, 0, middle, false, dim);
    const struct avx2_four tail = avx2_four_rows(type, metric, query, rows, middle, end, true, dim);

    return x86_finish_floats(metric, avx2_add_halves(head.a, tail.a),
                             avx2_add_halves(head.b, tail.b), avx2_add_halves(head.c, tail.c),
                             avx2_add_halves(head.d, tail.d), query_norm);
}

AVX2_INLINE void avx2_float_many(omendb_scalar type, omendb_metric metric, const void *query,
                                 const void *const *rows, size_t count, size_t dim, float *out)
{
    double query_norm = 0.0;
    __m256 squares;
    size_t i;

    if (metric == OMENDB_COSINE) {
        (void)avx2_float_sums(type, metric, query, query, dim, &squares);
        query_norm = x86_norm_of_floats(squares);
    }
    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        x86_store(out + i, count - i, avx2_float_four(type, metric, query, query_norm, group, dim));
    }
}

/* 32 bytes as 16-bit integers. */
struct avx2_ints {
    __m256i low, high;
};

AVX2_INLINE struct avx2_ints avx2_widen_bytes(omendb_scalar type, __m128i low, __m128i high)
{
    struct avx2_ints out;

    if (type == OMENDB_I8) {
        out.low = _mm256_cvtepi8_epi16(low);
        out.high = _mm256_cvtepi8_epi16(high);
    } else {
        out.low = _mm256_cvtepu8_epi16(low);
        out.high = _mm256_cvtepu8_epi16(high);
    }
    return out;
}

AVX2_INLINE struct avx2_ints avx2_load_bytes(omendb_scalar type, const unsigned char *vector,
                                             size_t i)
{
    return avx2_widen_bytes(type, avx2_load16(vector + i), avx2_load16(vector + i + 16));
}

AVX2_INLINE struct avx2_ints avx2_load_last_bytes(omendb_scalar type, const unsigned char *vector,
                                                  size_t dim)
{
    const __m256i rest = avx2_load_rest(vector, dim, dim % 32);

    return avx2_widen_bytes(type, _mm256_castsi256_si128(rest), _mm256_extracti128_si256(rest, 1));
}

AVX2_INLINE struct x86_int_sums avx2_int_step(omendb_metric metric, struct x86_int_sums sums,
                                              struct avx2_ints query, struct avx2_ints row)
{
    __m256i low, high;

    if (metric == OMENDB_L2) {
        low = _mm256_sub_epi16(query.low, row.low);
        high = _mm256_sub_epi16(query.high, row.high);
        low = _mm256_madd_epi16(low, low);
        high = _mm256_madd_epi16(high, high);
    } else {
        low = _mm256_madd_epi16(query.low, row.low);
        high = _mm256_madd_epi16(query.high, row.high);
    }
    sums.terms = _mm256_add_epi32(sums.terms, _mm256_add_epi32(low, high));
    if (metric == OMENDB_COSINE) {
        low = _mm256_madd_epi16(row.low, row.low);
        high = _mm256_madd_epi16(row.high, row.high);
        sums.squares = _mm256_add_epi32(sums.squares, _mm256_add_epi32(low, high));
    }
    return sums;
}

AVX2_INLINE struct x86_int_sums avx2_zero_sums(void)
{
    const struct x86_int_sums zero = {_mm256_setzero_si256(), _mm256_setzero_si256()};

    return zero;
}

AVX2_INLINE __m256i avx2_add_int_squares(omendb_metric metric, __m256i sum, struct avx2_ints block)
{
    if (metric != OMENDB_COSINE) {
        return sum;
    }
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(block.low, block.low),
                                                  _mm256_madd_epi16(block.high, block.high)));
}

/* Also stores the sums of the squares of `a`, under cosine. */
AVX2_INLINE struct x86_int_sums avx2_int_sums(omendb_scalar type, omendb_metric metric,
                                              const void *a, const void *b, size_t dim,
                                              __m256i *squares_of_a)
{
    struct x86_int_sums sums = avx2_zero_sums();
    struct avx2_ints block;
    size_t i;

    *squares_of_a = _mm256_setzero_si256();
    for (i = 0; i + 32 <= dim; i += 32) {
        block = avx2_load_bytes(type, a, i);
        sums = avx2_int_step(metric, sums, block, avx2_load_bytes(type, b, i));
        *squares_of_a = avx2_add_int_squares(metric, *squares_of_a, block);
    }
    if (i < dim) {
        block = avx2_load_last_bytes(type, a, dim);
        sums = avx2_int_step(metric, sums, block, avx2_load_last_bytes(type, b, dim));
        *squares_of_a = avx2_add_int_squares(metric, *squares_of_a, block);
    }
    return sums;
}

AVX2_INLINE float avx2_int_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                const void *b, size_t dim)
{
    __m256i squares;
    const struct x86_int_sums sums = avx2_int_sums(type, metric, a, b, dim, &squares);

    return x86_finish_int(type, metric, sums, 0, squares);
}

AVX2_INLINE __m128 avx2_int_four(omendb_scalar type, omendb_metric metric, const void *query,
                                 double query_norm, const void *const *rows, size_t dim)
{
    const void *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct x86_int_sums a = avx2_zero_sums(), b = a, c = a, d = a;
    size_t i;

    for (i = 0; i + 32 <= dim; i += 32) {
        const struct avx2_ints block = avx2_load_bytes(type, query, i);
        a = avx2_int_step(metric, a, block, avx2_load_bytes(type, row_a, i));
        b = avx2_int_step(metric, b, block, avx2_load_bytes(type, row_b, i));
        c = avx2_int_step(metric, c, block, avx2_load_bytes(type, row_c, i));
        d = avx2_int_step(metric, d, block, avx2_load_bytes(type, row_d, i));
    }
    if (i < dim) {
        const struct avx2_ints block = avx2_load_last_bytes(type, query, dim);
        a = avx2_int_step(metric, a, block, avx2_load_last_bytes(type, row_a, dim));
        b = avx2_int_step(metric, b, block, avx2_load_last_bytes(type, row_b, dim));
        c = avx2_int_step(metric, c, block, avx2_load_last_bytes(type, row_c, dim));
        d = avx2_int_step(metric, d, block, avx2_load_last_bytes(type, row_d, dim));
    }
    return x86_finish_ints(type, metric, a, b, c, d, 0, query_norm);
}

AVX2_INLINE void avx2_int_many(omendb_scalar type, omendb_metric metric, const void *query,
                               const void *const *rows, size_t count, size_t dim, float *out)
{
    double query_norm = 0.0;
    __m256i squares;
    size_t i;

    if (metric == OMENDB_COSINE) {
        (void)avx2_int_sums(type, metric, query, query, dim, &squares);
        query_norm = x86_norm_of_ints(squares);
    }
    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        x86_store(out + i, count - i, avx2_int_four(type, metric, query, query_norm, group, dim));
    }
}

/* Differing bits of up to 8 bytes. */
AVX2_INLINE uint64_t avx2_differing(const unsigned char *a, const unsigned char *b, size_t length)
{
    uint64_t left = 0, right = 0;

    memcpy(&left, a, length);
    memcpy(&right, b, length);
    return (uint64_t)__builtin_popcountll(left ^ right);
}

KERNELS_AVX2 static float avx2_hamming_pair(const void *a, const void *b, size_t dim)
{
    const unsigned char *x = a, *y = b;
    const size_t bytes = (dim + 7) / 8;
    uint64_t sum = 0;
    size_t i = 0;

    for (; i + 32 <= bytes; i += 32) {
        sum +=
            (avx2_differing(x + i, y + i, 8) + avx2_differing(x + i + 8, y + i + 8, 8)) +
            (avx2_differing(x + i + 16, y + i + 16, 8) + avx2_differing(x + i + 24, y + i + 24, 8));
    }
    for (; i + 8 <= bytes; i += 8) {
        sum += avx2_differing(x + i, y + i, 8);
    }
    if (i < bytes) {
        sum += avx2_differing(x + i, y + i, bytes - i);
    }
    return (float)sum;
}

KERNELS_AVX2 static void avx2_hamming_many(const void *query, const void *const *rows, size_t count,
                                           size_t dim, float *out)
{
    size_t i;

    for (i = 0; i < count; i++) {
        out[i] = avx2_hamming_pair(query, rows[i], dim);
    }
}

KERNELS_DEFINE_TYPE(KERNELS_AVX2, avx2, float, f32, OMENDB_F32)
KERNELS_DEFINE_TYPE(KERNELS_AVX2, avx2, float, f16, OMENDB_F16)
KERNELS_DEFINE_TYPE(KERNELS_AVX2, avx2, float, bf16, OMENDB_BF16)
KERNELS_DEFINE_TYPE(KERNELS_AVX2, avx2, int, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(KERNELS_AVX2, avx2, int, u8, OMENDB_U8)

OMENDB_INTERNAL const struct kernel_table *kernels_avx2_table(void)
{
    static const struct kernel_table table = {
        "avx2",
        {
            [OMENDB_F32] = KERNELS_ROW(avx2, f32),
            [OMENDB_F16] = KERNELS_ROW(avx2, f16),
            [OMENDB_BF16] = KERNELS_ROW(avx2, bf16),
            [OMENDB_I8] = KERNELS_ROW(avx2, i8),
            [OMENDB_U8] = KERNELS_ROW(avx2, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(avx2),
        },
    };

    return &table;
}

#undef AVX2_INLINE
#undef AVX2_BLOCK

#endif
