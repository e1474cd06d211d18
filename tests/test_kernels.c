/* test_kernels.c: every level that this processor runs, against a reference in double precision. */
#include "internals.h"

#include <pthread.h>

#include "kernel_checks.h"

static const struct kernel_table *levels[8];
static size_t level_count;

static void find_levels(void)
{
    level_count = kernels_levels(levels, 8);
}

TEST(levels_are_listed_from_scalar_to_best)
{
    find_levels();
    CHECK(level_count >= 1 && level_count <= 4);
    CHECK_EQ_STR(levels[0]->name, "scalar");
    CHECK_EQ_INT(kernels_levels(NULL, 0), level_count);
    for (size_t i = 0; i < level_count; i++) {
        printf("# %s\n", levels[i]->name);
    }
}

TEST(small_dimensions_at_every_offset_agree_with_the_reference)
{
    find_levels();
    for (size_t i = 0; i < level_count; i++) {
        checks_small_at_every_offset(levels[i]);
    }
}

TEST(nothing_is_read_around_a_vector)
{
    find_levels();
    for (size_t i = 0; i < level_count; i++) {
        checks_with_arenas(levels[i], checks_visit_page_ends);
    }
}

TEST(large_dimensions_and_extreme_values_agree_with_the_reference)
{
    find_levels();
    for (size_t i = 0; i < level_count; i++) {
        checks_with_arenas(levels[i], checks_visit_large);
    }
}

TEST(zero_vectors_have_distance_0_and_cosine_1)
{
    find_levels();
    for (size_t i = 0; i < level_count; i++) {
        checks_with_arenas(levels[i], checks_visit_zeros);
    }
}

TEST(integer_levels_agree_to_the_bit)
{
    unsigned char a[300], b[300];

    find_levels();
    for (size_t dim = 0; dim <= sizeof a; dim++) {
        checks_fill_vector(OMENDB_U8, CHECKS_RANDOM, a, dim);
        checks_fill_vector(OMENDB_U8, CHECKS_RANDOM, b, dim);
        for (size_t i = 1; i < level_count; i++) {
            for (int metric = OMENDB_L2; metric <= OMENDB_INNER_PRODUCT; metric++) {
                CHECK(checks_same_bits(levels[i]->by_type[OMENDB_I8][metric].pair(a, b, dim),
                                       levels[0]->by_type[OMENDB_I8][metric].pair(a, b, dim)));
                CHECK(checks_same_bits(levels[i]->by_type[OMENDB_U8][metric].pair(a, b, dim),
                                       levels[0]->by_type[OMENDB_U8][metric].pair(a, b, dim)));
            }
        }
    }
}

TEST(impossible_combinations_have_no_kernel)
{
    CHECK(kernels_for(OMENDB_F32, OMENDB_HAMMING) == NULL);
    CHECK(kernels_for(OMENDB_B1, OMENDB_L2) == NULL);
    CHECK(kernels_for((omendb_scalar)6, OMENDB_L2) == NULL);
    CHECK(kernels_for((omendb_scalar)-1, OMENDB_L2) == NULL);
    CHECK(kernels_for(OMENDB_F32, (omendb_metric)4) == NULL);
    CHECK(kernels_for(OMENDB_B1, OMENDB_HAMMING) != NULL);
    CHECK(kernels_for(OMENDB_F32, OMENDB_L2) == &kernels_active()->by_type[OMENDB_F32][OMENDB_L2]);
}

TEST(a_named_level_is_the_best_at_or_below_it)
{
    find_levels();
    for (size_t i = 0; i < level_count; i++) {
        CHECK(kernels_choose(levels[i]->name) == levels[i]);
    }
    CHECK(kernels_choose(NULL) == levels[level_count - 1]);
    CHECK(kernels_choose("no such level") == levels[level_count - 1]);
#if KERNELS_X86
    CHECK(level_count < 2 || strcmp(levels[1]->name, "avx2") == 0);
    if (level_count == 2) {
        CHECK(kernels_choose("avx512vnni") == levels[1]);
    }
#endif
}

TEST(the_environment_forces_a_level)
{
    const char *name = getenv("OMENDB_KERNELS");

    CHECK(kernels_active() == kernels_choose(name));
}

static void *read_active(void *result)
{
    *(const struct kernel_table **)result = kernels_active();
    return NULL;
}

TEST(threads_agree_on_the_level)
{
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    const struct kernel_table *seen[THREADS];

    for (size_t i = 0; i < THREADS; i++) {
        CHECK_EQ_INT(pthread_create(&threads[i], NULL, read_active, &seen[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        CHECK_EQ_INT(pthread_join(threads[i], NULL), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        CHECK(seen[i] == kernels_active());
    }
}

TEST_MAIN(threads_agree_on_the_level, levels_are_listed_from_scalar_to_best,
          small_dimensions_at_every_offset_agree_with_the_reference,
          nothing_is_read_around_a_vector,
          large_dimensions_and_extreme_values_agree_with_the_reference,
          zero_vectors_have_distance_0_and_cosine_1, integer_levels_agree_to_the_bit,
          impossible_combinations_have_no_kernel, a_named_level_is_the_best_at_or_below_it,
          the_environment_forces_a_level)
