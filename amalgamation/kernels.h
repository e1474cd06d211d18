/* kernels.h: distances between stored vectors, for each element type, metric and instruction set.
 *
 * Meaning, with vectors of `dim` elements of one type at any address:
 *   L2             sum (a - b)^2, the squared distance
 *   inner product  -(a . b)
 *   cosine         1 - a.b / sqrt(a.a * b.b), within [0, 2]; 1 if either vector is zero
 *   Hamming        differing bits; dim is in bits, (dim + 7) / 8 bytes, the unused last bits are
 * zero A dim of 0 gives 0 (cosine 1). No byte past the vectors is read.
 *
 * Invariants, at every level:
 * - i8 and u8 are summed exactly in 32 bits, which hold 65,535 products of 255 * 255.
 * - f32, f16 and bf16 are summed in f32. With n = dim, e = 2^-24 and S the sum of the terms'
 * absolute values, the error is at most (n / 4 + 16) * e * S.
 * - pair(a, b) and many(a, {b}) give the same bits, whatever the position of the row in the call,
 * and so do L2 and inner product with a and b exchanged; equal vectors have an L2 and a cosine
 * distance of exactly 0. Ties are therefore ties whichever way a candidate was reached. Two levels
 * may differ within the bound. */
#ifndef OMENDB_KERNELS_H
#define OMENDB_KERNELS_H

#include <math.h>

#include "internal.h"

#define KERNEL_SCALARS 6
#define KERNEL_METRICS 4

typedef float (*kernel_pair)(const void *a, const void *b, size_t dim);

/* out[i] = distance(query, rows[i]). Four rows at a time share the loads of the query and have
 * their cache misses in flight together; nothing is prefetched. */
typedef void (*kernel_many)(const void *query, const void *const *rows, size_t count, size_t dim,
                            float *out);

struct kernel {
    kernel_pair pair;
    kernel_many many;
};

/* One level. Entries of combinations that make no sense (Hamming goes with bits, and only with
 * bits) are null. */
struct kernel_table {
    const char *name;
    struct kernel by_type[KERNEL_SCALARS][KERNEL_METRICS];
};

/* The table in use: the best this processor runs, or what the environment variable OMENDB_KERNELS
 * names. Any thread; the first call detects. */
OMENDB_INTERNAL const struct kernel_table *kernels_active(void);

/* The entry of the active table; NULL for a combination that makes no sense. */
OMENDB_INTERNAL const struct kernel *kernels_for(omendb_scalar scalar, omendb_metric metric);

/* The best level that runs, among those up to the one of that name; NULL: among all. */
OMENDB_INTERNAL const struct kernel_table *kernels_choose(const char *name);

/* Every level that this processor can run, scalar first and the best last. Writes at most
 * `capacity` and returns how many there are (at most 4). */
OMENDB_INTERNAL size_t kernels_levels(const struct kernel_table **out, size_t capacity);

/* The levels. Which files have code depends on the compiler's target and version only. */
#if (defined(__x86_64__) && (__GNUC__ >= 9 || __clang_major__ >= 7)) ||                            \
    defined(KERNELS_EMULATED_X86)
#define KERNELS_X86 1
#else
#define KERNELS_X86 0
#endif

#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define KERNELS_NEON 1
#else
#define KERNELS_NEON 0
#endif

/* Clang offers the dot product intrinsics below its version 16 only where the whole file is built
 * with the feature, as Apple's compiler does for every Mac. */
#if KERNELS_NEON && (defined(__ARM_FEATURE_DOTPROD) || !defined(__clang__) || __clang_major__ >= 16)
#define KERNELS_NEONDOT 1
#else
#define KERNELS_NEONDOT 0
#endif

OMENDB_INTERNAL const struct kernel_table *kernels_scalar_table(void);
#if KERNELS_X86
OMENDB_INTERNAL const struct kernel_table *kernels_avx2_table(void);
OMENDB_INTERNAL const struct kernel_table *kernels_avx512_table(void);
OMENDB_INTERNAL const struct kernel_table *kernels_avx512vnni_table(void);
#endif
#if KERNELS_NEON
OMENDB_INTERNAL const struct kernel_table *kernels_neon_table(void);
#endif
#if KERNELS_NEONDOT
OMENDB_INTERNAL const struct kernel_table *kernels_neondot_table(void);
#endif

/* Bodies are written once for all types and metrics of a family and inlined with these two
 * constant; the compiler then drops the other branches. Hence the forced inlining. */
#if defined(__GNUC__) || defined(__clang__)
#define KERNELS_INLINE static inline __attribute__((always_inline, unused))
#else
#define KERNELS_INLINE static inline
#endif

/* Defines pair and many of one type under one metric from the bodies of a level's family. */
#define KERNELS_DEFINE(target, level, family, type, TYPE, metric, METRIC)                          \
    target static float level##_##type##_##metric##_pair(const void *a, const void *b, size_t dim) \
    {                                                                                              \
        return level##_##family##_pair(TYPE, METRIC, a, b, dim);                                   \
    }                                                                                              \
    target static void level##_##type##_##metric##_many(                                           \
        const void *query, const void *const *rows, size_t count, size_t dim, float *out)          \
    {                                                                                              \
        level##_##family##_many(TYPE, METRIC, query, rows, count, dim, out);                       \
    }

#define KERNELS_DEFINE_TYPE(target, level, family, type, TYPE)                                     \
    KERNELS_DEFINE(target, level, family, type, TYPE, l2, OMENDB_L2)                               \
    KERNELS_DEFINE(target, level, family, type, TYPE, cosine, OMENDB_COSINE)                       \
    KERNELS_DEFINE(target, level, family, type, TYPE, dot, OMENDB_INNER_PRODUCT)

/* A table's row for one type. */
#define KERNELS_ROW(level, type)                                                                   \
    {                                                                                              \
        [OMENDB_L2] = {level##_##type##_l2_pair, level##_##type##_l2_many},                        \
        [OMENDB_COSINE] = {level##_##type##_cosine_pair, level##_##type##_cosine_many},            \
        [OMENDB_INNER_PRODUCT] = {level##_##type##_dot_pair, level##_##type##_dot_many},           \
    }

#define KERNELS_ROW_BITS(level)                                                                    \
    {                                                                                              \
        [OMENDB_HAMMING] = {level##_hamming_pair, level##_hamming_many},                           \
    }

/* The four rows from `first` on; past the end of `rows` the last one stands in, through `padded`.
 */
KERNELS_INLINE const void *const *kernels_group(const void *const *rows, size_t first, size_t count,
                                                const void **padded)
{
    size_t i;

    if (count - first >= 4) {
        return rows + first;
    }
    for (i = 0; i < 4; i++) {
        padded[i] = rows[first + i < count ? first + i : count - 1];
    }
    return padded;
}

/* In double, because the product of two norms overflows f32, and because sqrt(a.a * a.a) is then
 * a.a exactly. A program with huge or NaN values gets some number in [0, 2] or NaN. */
KERNELS_INLINE float kernels_cosine(double dot, double norm_a, double norm_b)
{
    const double product = norm_a * norm_b;
    double distance = 1.0;

    if (product > 0.0) {
        distance = 1.0 - dot / sqrt(product);
        distance = distance < 0.0 ? 0.0 : distance > 2.0 ? 2.0 : distance;
    }
    return (float)distance;
}

#endif
