/* bench_kernels.c: the rate of every kernel, next to what the machine could do at best.
 *
 *     bench_kernels [level]
 *
 * For each level that the processor runs (or the one named), element type and metric, at 128, 384
 * and 1,536 dimensions, in nanoseconds a distance on one thread: pair, many  rows that stay in the
 * L1 cache (16 KB of them), one at a time and 32 a call L1 read     a loop that only reads as many
 * bytes of the same rows, by the widest plain loads random      many, 32 a call, on random rows of
 * a set of 512 MB; nothing is prefetched read        a loop that only reads the same random rows
 * and the percentage of the reading loop's rate that `many` reaches. */
#define _DEFAULT_SOURCE 1

#include "omendb.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define BENCH_SET_BYTES  ((size_t)512 << 20)
#define BENCH_TEMPLATE   ((size_t)1 << 20)
#define BENCH_GROUP      32
#define BENCH_L1_BYTES   ((size_t)16 << 10)
#define BENCH_RANDOM     (size_t)65536 /* rows read at random in one measurement */
#define BENCH_REPETITION 3             /* the fastest counts */

#if defined(__x86_64__)
typedef long long bench_word __attribute__((vector_size(32), aligned(1), may_alias));
#define BENCH_WIDE __attribute__((target("avx2")))
#else
typedef long long bench_word __attribute__((vector_size(16), aligned(1), may_alias));
#define BENCH_WIDE
#endif

/* One word of the last 16 bytes stands for both: the line is what costs. */
typedef long long bench_half __attribute__((aligned(1), may_alias));

static volatile float bench_sink;
static volatile long long bench_read_sink;

static double bench_now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static uint32_t bench_random(void)
{
    static uint64_t state = 7;

    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* The limit: four rows are read side by side, a cache line of each in turn, as `many` does. `bytes`
 * is a multiple of 16. */
BENCH_WIDE static void bench_read(const void *const *rows, size_t count, size_t bytes)
{
    const size_t word = sizeof(bench_word), line = 64;
    bench_word sums[4] = {{0}, {0}, {0}, {0}};
    size_t i, j, k;

    for (i = 0; i + 4 <= count; i += 4) {
        const unsigned char *a = rows[i], *b = rows[i + 1], *c = rows[i + 2], *d = rows[i + 3];
        for (j = 0; j + line <= bytes; j += line) {
            for (k = j; k < j + line; k += word) {
                sums[0] ^= *(const bench_word *)(a + k);
                sums[1] ^= *(const bench_word *)(b + k);
                sums[2] ^= *(const bench_word *)(c + k);
                sums[3] ^= *(const bench_word *)(d + k);
            }
        }
        for (; j < bytes; j += 16) {
            sums[0][0] ^= *(const bench_half *)(a + j);
            sums[1][0] ^= *(const bench_half *)(b + j);
            sums[2][0] ^= *(const bench_half *)(c + j);
            sums[3][0] ^= *(const bench_half *)(d + j);
        }
    }
    sums[0] ^= sums[1] ^ sums[2] ^ sums[3];
    bench_read_sink = sums[0][0] ^ sums[0][1];
}

/* One way of going over rows; returns nanoseconds a row. */
typedef double (*bench_loop)(const struct kernel *kernel, const void *query,
                             const void *const *rows, size_t count, size_t dim, size_t bytes);

static double bench_pairs(const struct kernel *kernel, const void *query, const void *const *rows,
                          size_t count, size_t dim, size_t bytes)
{
    const double start = bench_now();
    float sum = 0;
    size_t i;

    (void)bytes;
    for (i = 0; i < count; i++) {
        sum += kernel->pair(query, rows[i], dim);
    }
    bench_sink = sum;
    return (bench_now() - start) / (double)count;
}

static double bench_many(const struct kernel *kernel, const void *query, const void *const *rows,
                         size_t count, size_t dim, size_t bytes)
{
    const double start = bench_now();
    float out[BENCH_GROUP] = {0};
    size_t i;

    (void)bytes;
    for (i = 0; i + BENCH_GROUP <= count; i += BENCH_GROUP) {
        kernel->many(query, rows + i, BENCH_GROUP, dim, out);
        bench_sink = out[i % BENCH_GROUP];
    }
    return (bench_now() - start) / (double)count;
}

static double bench_reads(const struct kernel *kernel, const void *query, const void *const *rows,
                          size_t count, size_t dim, size_t bytes)
{
    const double start = bench_now();
    size_t i;

    (void)kernel, (void)query, (void)dim;
    for (i = 0; i + BENCH_GROUP <= count; i += BENCH_GROUP) {
        bench_read(rows + i, BENCH_GROUP, bytes);
    }
    return (bench_now() - start) / (double)count;
}

struct bench_set {
    unsigned char *memory;
    const void **rows; /* BENCH_RANDOM of them */
};

static double bench_best(bench_loop loop, const struct kernel *kernel, const struct bench_set *set,
                         size_t count, size_t dim, size_t bytes)
{
    double best = 1e30;
    int i;

    for (i = 0; i < BENCH_REPETITION; i++) {
        const double time = loop(kernel, set->memory, set->rows, count, dim, bytes);
        best = time < best ? time : best;
    }
    return best;
}

static void bench_choose_l1(const struct bench_set *set, size_t count, size_t bytes)
{
    const size_t distinct = BENCH_L1_BYTES / bytes;
    size_t i;

    for (i = 0; i < count; i++) {
        set->rows[i] = set->memory + i % distinct * bytes;
    }
}

static void bench_choose_random(const struct bench_set *set, size_t bytes)
{
    const size_t distinct = BENCH_SET_BYTES / bytes;
    size_t i;

    for (i = 0; i < BENCH_RANDOM; i++) {
        set->rows[i] = set->memory + bench_random() % distinct * bytes;
    }
}

static void bench_kernel(const struct bench_set *set, const struct kernel_table *level,
                         omendb_scalar type, omendb_metric metric, size_t dim)
{
    static const char *const types[] = {"f32", "f16", "bf16", "i8", "u8", "b1"};
    static const char *const metrics[] = {"l2", "cosine", "ip", "hamming"};
    const struct kernel *kernel = &level->by_type[type][metric];
    const size_t bytes = scalar_bytes(type, dim);
    const size_t l1_count = BENCH_RANDOM / 8;
    double pair, many, l1_read, random_many, random_read;

    bench_choose_l1(set, l1_count, bytes);
    pair = bench_best(bench_pairs, kernel, set, l1_count, dim, bytes);
    many = bench_best(bench_many, kernel, set, l1_count, dim, bytes);
    l1_read = bench_best(bench_reads, kernel, set, l1_count, dim, bytes);
    bench_choose_random(set, bytes);
    random_many = bench_best(bench_many, kernel, set, BENCH_RANDOM, dim, bytes);
    random_read = bench_best(bench_reads, kernel, set, BENCH_RANDOM, dim, bytes);
    printf("%-11s %-4s %-7s %5zu %8.1f %8.1f %8.1f %4.0f%% %9.1f %9.1f %4.0f%%\n", level->name,
           types[type], metrics[metric], dim, pair, many, l1_read, 100 * l1_read / many,
           random_many, random_read, 100 * random_read / random_many);
    fflush(stdout);
}

/* Fills the set with small numbers of the type, the same megabyte again and again. */
static int bench_fill(const struct bench_set *set, omendb_scalar type)
{
    const struct scalar_format format = {type, type == OMENDB_B1 ? OMENDB_HAMMING : OMENDB_L2,
                                         BENCH_GROUP, 100.0f};
    const size_t bytes = scalar_bytes(type, BENCH_GROUP);
    float values[BENCH_GROUP];
    const char *reason;
    size_t position, i, j;

    for (i = 0; i < BENCH_TEMPLATE; i += bytes) {
        for (j = 0; j < BENCH_GROUP; j++) {
            values[j] = (float)(bench_random() % 2048) / 1024.0f - 1.0f;
        }
        if (scalar_convert(&format, values, OMENDB_F32, set->memory + i, &reason, &position)) {
            return -1;
        }
    }
    for (i = BENCH_TEMPLATE; i < BENCH_SET_BYTES; i += BENCH_TEMPLATE) {
        memcpy(set->memory + i, set->memory, BENCH_TEMPLATE);
    }
    return 0;
}

static int bench_type(const struct bench_set *set, const struct kernel_table *const *levels,
                      size_t level_count, omendb_scalar type)
{
    static const size_t dims[] = {128, 384, 1536};
    size_t i, j;
    int metric;

    if (bench_fill(set, type) != 0) {
        return -1;
    }
    for (i = 0; i < level_count; i++) {
        for (metric = 0; metric < KERNEL_METRICS; metric++) {
            for (j = 0; j < 3 && levels[i]->by_type[type][metric].pair != NULL; j++) {
                bench_kernel(set, levels[i], type, (omendb_metric)metric, dims[j]);
            }
        }
    }
    return 0;
}

/* Keeps only the level of that name. */
static size_t bench_select(const struct kernel_table **levels, size_t count, const char *name)
{
    size_t i;

    for (i = 0; i < count; i++) {
        if (strcmp(levels[i]->name, name) == 0) {
            levels[0] = levels[i];
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    const struct kernel_table *levels[4];
    size_t level_count = kernels_levels(levels, 4);
    struct bench_set set;
    int type, failed = 0;

    level_count = argc > 1 ? bench_select(levels, level_count, argv[1]) : level_count;
    if (level_count == 0) {
        fprintf(stderr, "this processor has no level \"%s\"\n", argv[1]);
        return 1;
    }
    set.memory =
        mmap(NULL, BENCH_SET_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    set.rows = malloc(BENCH_RANDOM * sizeof *set.rows);
    if (set.memory == MAP_FAILED || set.rows == NULL) {
        fprintf(stderr, "not enough memory for a set of 512 MB\n");
        return 1;
    }
#if defined(MADV_HUGEPAGE)
    madvise(set.memory, BENCH_SET_BYTES, MADV_HUGEPAGE);
#endif
    printf("ns a distance; in L1 cache, and on random rows of 512 MB\n");
    printf("%-11s %-4s %-7s %5s %8s %8s %8s %5s %9s %9s %5s\n", "level", "type", "metric", "dim",
           "pair", "many", "L1 read", "of it", "random", "read", "of it");
    for (type = 0; type < KERNEL_SCALARS && !failed; type++) {
        failed = bench_type(&set, levels, level_count, (omendb_scalar)type) != 0;
    }
    free(set.rows);
    munmap(set.memory, BENCH_SET_BYTES);
    return failed;
}
