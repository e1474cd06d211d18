/* kernel_checks.h: one kernel table against a reference in double precision.
 *
 * Used by test_kernels.c for the levels that this processor runs and by test_kernels_emulated.c for
 * those that it may lack. The reference reads elements by its own arithmetic, not by the library's.
 *
 * With n = dim, e = 2^-24 and S the sum of the terms' absolute values, an f32, f16 or bf16 kernel
 * may be off by (n / 4 + 16) e S; L2 and inner product of integers are exact but for one rounding
 * to f32. */
#ifndef OMENDB_KERNEL_CHECKS_H
#define OMENDB_KERNEL_CHECKS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test.h"

enum { CHECKS_ROWS = 9, CHECKS_MAX_DIM = 65535 };

/* How vectors are filled. */
enum checks_fill { CHECKS_RANDOM, CHECKS_LOWEST, CHECKS_OPPOSITE, CHECKS_TINY, CHECKS_LARGE };

static uint64_t checks_state = 1;

static uint32_t checks_random(void)
{
    checks_state = checks_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(checks_state >> 32);
}

/* A number between 0 and 1. */
static double checks_uniform(void)
{
    return (double)checks_random() / 4294967296.0;
}

static double checks_f16(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double magnitude =
        exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);

    return bits & 0x8000 ? -magnitude : magnitude;
}

static double checks_element(omendb_scalar type, const unsigned char *vector, size_t i)
{
    uint16_t half;
    uint32_t word;
    float value;

    switch (type) {
    case OMENDB_F32:
        memcpy(&value, vector + 4 * i, 4);
        return (double)value;
    case OMENDB_F16:
        memcpy(&half, vector + 2 * i, 2);
        return checks_f16(half);
    case OMENDB_BF16:
        memcpy(&half, vector + 2 * i, 2);
        word = (uint32_t)half << 16;
        memcpy(&value, &word, 4);
        return (double)value;
    case OMENDB_I8:
        return (double)(vector[i] < 128 ? vector[i] : vector[i] - 256);
    case OMENDB_U8:
        return (double)vector[i];
    default:
        return (double)(vector[i / 8] >> (i % 8) & 1);
    }
}

static size_t checks_bytes(omendb_scalar type, size_t dim)
{
    static const size_t bits[] = {32, 16, 16, 8, 8, 1};

    return (dim * bits[type] + 7) / 8;
}

static uint16_t checks_random_f16(enum checks_fill fill)
{
    const uint32_t sign = checks_random() & 0x8000u, fraction = checks_random() & 0x3ffu;

    switch (fill) {
    case CHECKS_TINY: /* subnormal */
        return (uint16_t)(sign | fraction);
    case CHECKS_LARGE: /* 32768 to 65504 */
        return (uint16_t)(sign | 30u << 10 | fraction);
    case CHECKS_LOWEST:
        return 0xfbff;
    case CHECKS_OPPOSITE:
        return 0x7bff;
    default:
        return (uint16_t)(sign | (8u + checks_random() % 8u) << 10 | fraction);
    }
}

/* One element by its bits; f32 and bf16 stay where 65,535 squares do not overflow. */
static void checks_fill_element(omendb_scalar type, enum checks_fill fill, unsigned char *vector,
                                size_t i)
{
    static const double scales[] = {1.0, 4e15, -4e15, 1e-18, 2e15};
    const double noise =
        fill == CHECKS_LOWEST || fill == CHECKS_OPPOSITE ? 1.0 : 2.0 * checks_uniform() - 1.0;
    const float value = (float)(noise * scales[fill]);
    const uint16_t f16 = checks_random_f16(fill);

    if (type == OMENDB_F32) {
        memcpy(vector + 4 * i, &value, 4);
    } else if (type == OMENDB_BF16) {
        uint32_t word;
        memcpy(&word, &value, 4);
        word >>= 16;
        memcpy(vector + 2 * i, &word, 2);
    } else if (type == OMENDB_F16) {
        memcpy(vector + 2 * i, &f16, 2);
    } else {
        const unsigned char lowest = type == OMENDB_I8 ? 0x80 : 0x00;
        vector[i] = fill == CHECKS_LOWEST     ? lowest
                    : fill == CHECKS_OPPOSITE ? (unsigned char)(lowest - 1)
                    : fill == CHECKS_TINY     ? (unsigned char)(checks_random() % 3)
                                              : (unsigned char)(checks_random() >> 8);
    }
}

static void checks_fill_vector(omendb_scalar type, enum checks_fill fill, unsigned char *vector,
                               size_t dim)
{
    const size_t count = type == OMENDB_B1 ? checks_bytes(type, dim) : dim;
    size_t i;

    for (i = 0; i < count; i++) {
        checks_fill_element(type, fill, vector, i);
    }
    if (type == OMENDB_B1 && dim % 8 != 0) {
        vector[count - 1] &= (unsigned char)((1u << dim % 8) - 1u);
    }
}

/* The distance and how far a kernel may be from it. */
static double checks_reference(omendb_scalar type, omendb_metric metric, const void *a,
                               const void *b, size_t dim, double *bound)
{
    const double unit = ldexp(1.0, -24), chain = ((double)dim / 4 + 16) * unit;
    double terms = 0, absolute = 0, norm_a = 0, norm_b = 0, cosine;
    const bool exact = type == OMENDB_I8 || type == OMENDB_U8 || type == OMENDB_B1;
    size_t i;

    for (i = 0; i < dim; i++) {
        const double x = checks_element(type, a, i), y = checks_element(type, b, i);
        const double term =
            metric == OMENDB_L2 || metric == OMENDB_HAMMING ? (x - y) * (x - y) : x * y;
        terms += term;
        absolute += fabs(term);
        norm_a += x * x;
        norm_b += y * y;
    }
    if (metric != OMENDB_COSINE) {
        *bound = exact ? 0.0 : chain * absolute;
        return metric == OMENDB_INNER_PRODUCT ? (double)(float)(0.0 - terms) : (double)(float)terms;
    }
    if (norm_a * norm_b == 0.0) {
        *bound = 0.0;
        return 1.0;
    }
    cosine = terms / sqrt(norm_a * norm_b);
    *bound = 2 * unit + (exact ? 0.0 : chain * (absolute / sqrt(norm_a * norm_b) + fabs(cosine)));
    return 1.0 - cosine;
}

static bool checks_same_bits(float a, float b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

struct checks_case {
    const struct kernel_table *table;
    omendb_scalar type;
    omendb_metric metric;
    size_t dim;
};

static void checks_fail(const struct checks_case *c, const char *what, double got, double expected)
{
    test_failures++;
    fprintf(stderr, "%s type %d metric %d dim %zu: %s: %.9g, expected %.9g\n", c->table->name,
            (int)c->type, (int)c->metric, c->dim, what, got, expected);
}

/* pair against the reference, in both orders, and against itself. */
static void checks_pair(const struct checks_case *c, const void *a, const void *b)
{
    const kernel_pair pair = c->table->by_type[c->type][c->metric].pair;
    double bound;
    const double expected = checks_reference(c->type, c->metric, a, b, c->dim, &bound);
    const float got = pair(a, b, c->dim), swapped = pair(b, a, c->dim), own = pair(a, a, c->dim);

    if (!(fabs((double)got - expected) <= bound)) {
        checks_fail(c, "pair", (double)got, expected);
    }
    if (!checks_same_bits(got, swapped)) {
        checks_fail(c, "pair with the vectors exchanged", (double)swapped, (double)got);
    }
    if (c->metric != OMENDB_INNER_PRODUCT && own != 0.0f &&
        checks_reference(c->type, c->metric, a, a, c->dim, &bound) < 0.5) {
        checks_fail(c, "distance to itself", (double)own, 0.0);
    }
}

/* many over `count` rows gives what pair gives, and writes nothing else. */
static void checks_many(const struct checks_case *c, const void *query, const void *const *rows,
                        size_t count)
{
    const struct kernel *kernel = &c->table->by_type[c->type][c->metric];
    float out[CHECKS_ROWS + 1];
    size_t i;

    out[count] = -12345.0f;
    kernel->many(query, rows, count, c->dim, out);
    for (i = 0; i < count; i++) {
        const float expected = kernel->pair(query, rows[i], c->dim);
        if (!checks_same_bits(out[i], expected)) {
            checks_fail(c, "many", (double)out[i], (double)expected);
        }
    }
    if (out[count] != -12345.0f) {
        checks_fail(c, "written past the last distance", (double)out[count], -12345.0);
    }
}

/* Memory between two unreadable pages. */
struct checks_arena {
    unsigned char *map, *begin, *end;
    size_t bytes;
};

static void checks_arena_open(struct checks_arena *arena, size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);

    arena->bytes = (bytes + page - 1) / page * page + 2 * page;
    arena->map =
        mmap(NULL, arena->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena->map == MAP_FAILED) {
        abort();
    }
    arena->begin = arena->map + page;
    arena->end = arena->map + arena->bytes - page;
    mprotect(arena->map, page, PROT_NONE);
    mprotect(arena->end, page, PROT_NONE);
}

static void checks_arena_close(struct checks_arena *arena)
{
    munmap(arena->map, arena->bytes);
}

static void checks_two(const struct checks_case *c, enum checks_fill fill_a, unsigned char *a,
                       enum checks_fill fill_b, unsigned char *b)
{
    const void *rows[CHECKS_ROWS];
    size_t i;

    checks_fill_vector(c->type, fill_a, a, c->dim);
    checks_fill_vector(c->type, fill_b, b, c->dim);
    checks_pair(c, a, b);
    for (i = 0; i < CHECKS_ROWS; i++) {
        rows[i] = i % 3 == 1 ? a : b;
    }
    checks_many(c, a, rows, 1 + c->dim % CHECKS_ROWS);
}

/* Both vectors end where an unreadable page begins. */
static void checks_at_page_end(const struct checks_case *c, enum checks_fill fill_a,
                               enum checks_fill fill_b, struct checks_arena *arenas)
{
    const size_t bytes = checks_bytes(c->type, c->dim);

    checks_two(c, fill_a, arenas[0].end - bytes, fill_b, arenas[1].end - bytes);
}

/* Nine vectors at nine different misalignments, the query at `offset`, with 0xff (NaN in the types
 * of floats) before and after each. */
static void checks_at_offset(const struct checks_case *c, size_t offset, unsigned char *memory)
{
    const size_t bytes = checks_bytes(c->type, c->dim), stride = (bytes + 255) / 64 * 64;
    const void *rows[CHECKS_ROWS];
    unsigned char *query = memory + 64 + offset;
    size_t i;

    memset(memory, 0xff, stride * (CHECKS_ROWS + 1));
    checks_fill_vector(c->type, CHECKS_RANDOM, query, c->dim);
    for (i = 0; i < CHECKS_ROWS; i++) {
        unsigned char *row = memory + stride * (i + 1) + 64 + (offset * 7 + i * 5) % 64;
        checks_fill_vector(c->type, CHECKS_RANDOM, row, c->dim);
        rows[i] = row;
    }
    checks_pair(c, query, rows[offset % CHECKS_ROWS]);
    checks_many(c, query, rows, (offset + c->dim) % (CHECKS_ROWS + 1));
}

static bool checks_is_legal(omendb_scalar type, omendb_metric metric)
{
    return (type == OMENDB_B1) == (metric == OMENDB_HAMMING);
}

/* Calls `visit` for every legal kernel of the table. */
static void checks_each(const struct kernel_table *table,
                        void (*visit)(struct checks_case *, void *), void *context)
{
    int type, metric;

    for (type = 0; type < KERNEL_SCALARS; type++) {
        for (metric = 0; metric < KERNEL_METRICS; metric++) {
            struct checks_case c = {table, (omendb_scalar)type, (omendb_metric)metric, 0};
            if (checks_is_legal(c.type, c.metric)) {
                visit(&c, context);
            } else if (table->by_type[type][metric].pair || table->by_type[type][metric].many) {
                checks_fail(&c, "a kernel for what makes no sense", 1, 0);
            }
        }
    }
}

/* Dimensions 0 to 130 at every byte offset from a cache line; above 33, where blocks repeat, each
 * dimension takes every third offset, and the next one the others. */
static void checks_visit_small(struct checks_case *c, void *context)
{
    size_t offset;

    for (c->dim = 0; c->dim <= 130; c->dim++) {
        const size_t step = c->dim <= 33 ? 1 : 3;
        for (offset = c->dim % step; offset < 64; offset += step) {
            checks_at_offset(c, offset, context);
        }
    }
}

/* Both vectors at the end and at the beginning of what may be read. */
static void checks_visit_page_ends(struct checks_case *c, void *context)
{
    struct checks_arena *arenas = context;

    for (c->dim = 0; c->dim <= 260; c->dim++) {
        checks_at_page_end(c, CHECKS_RANDOM, CHECKS_RANDOM, context);
        checks_two(c, CHECKS_RANDOM, arenas[0].begin, CHECKS_RANDOM, arenas[1].begin);
    }
}

/* Large and odd dimensions with values at the ends of their ranges. */
static void checks_visit_large(struct checks_case *c, void *context)
{
    static const size_t dims[] = {255, 256, 257, 384, 1023, 1537, 4099, CHECKS_MAX_DIM};
    static const enum checks_fill fills[][2] = {
        {CHECKS_RANDOM, CHECKS_RANDOM},   {CHECKS_LOWEST, CHECKS_LOWEST},
        {CHECKS_LOWEST, CHECKS_OPPOSITE}, {CHECKS_OPPOSITE, CHECKS_OPPOSITE},
        {CHECKS_TINY, CHECKS_TINY},       {CHECKS_LARGE, CHECKS_RANDOM},
        {CHECKS_LARGE, CHECKS_LARGE},
    };
    size_t i, j;

    for (i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        c->dim = dims[i];
        for (j = 0; j < sizeof fills / sizeof fills[0]; j++) {
            checks_at_page_end(c, fills[j][0], fills[j][1], context);
        }
    }
}

/* One zero vector, and two. */
static void checks_visit_zeros(struct checks_case *c, void *context)
{
    struct checks_arena *arenas = context;
    const struct kernel *kernel = &c->table->by_type[c->type][c->metric];

    for (c->dim = 0; c->dim <= 130; c->dim++) {
        const size_t bytes = checks_bytes(c->type, c->dim);
        unsigned char *a = arenas[0].end - bytes, *b = arenas[1].end - bytes;
        const void *row = b;
        const float expected = c->metric == OMENDB_COSINE ? 1.0f : 0.0f;
        float both, one;

        memset(a, 0, bytes);
        memset(b, 0, bytes);
        both = kernel->pair(a, b, c->dim);
        kernel->many(a, &row, 1, c->dim, &one);
        if (!checks_same_bits(both, expected) || !checks_same_bits(one, expected)) {
            checks_fail(c, "two zero vectors", (double)both, (double)expected);
        }
        checks_fill_vector(c->type, CHECKS_RANDOM, b, c->dim);
        checks_pair(c, a, b);
    }
}

static void checks_small_at_every_offset(const struct kernel_table *table)
{
    const size_t stride = 4 * 130 + 256;
    unsigned char *memory = malloc(stride * (CHECKS_ROWS + 1) + 256);

    CHECK(memory != NULL);
    checks_each(table, checks_visit_small, memory);
    free(memory);
}

static void checks_with_arenas(const struct kernel_table *table,
                               void (*visit)(struct checks_case *, void *))
{
    struct checks_arena arenas[2];

    checks_arena_open(&arenas[0], 4 * CHECKS_MAX_DIM);
    checks_arena_open(&arenas[1], 4 * CHECKS_MAX_DIM);
    checks_each(table, visit, arenas);
    checks_arena_close(&arenas[0]);
    checks_arena_close(&arenas[1]);
}

#endif
