/* test_small_parts.c: what the small modules promise at the ends of their ranges, where no database
 * brings them: sentences, memory, files in memory, samples of codes, curves of recall. */
#include "internals.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test.h"

/* ------------------------------------------------------------------------------------------------
 * sentences */

/* Not UTF-8 at all: it is cut where it must be, not where a character would begin. */
TEST(a_long_sentence_of_broken_characters_is_cut_all_the_same)
{
    static char broken[2 * ERROR_TEXT_BYTES];
    memset(broken, 0x80, sizeof broken - 1);
    CHECK_EQ_INT(error_set(OMENDB_INVALID, "%s", broken), OMENDB_INVALID);
    CHECK_EQ_INT(strlen(omendb_errmsg()), ERROR_TEXT_BYTES - 1);
}

/* ------------------------------------------------------------------------------------------------
 * memory */

/* From this size on memory.c maps blocks instead of allocating them. */
#define PARTS_MAPPED ((size_t)1 << 20)

static int parts_is_filled(const unsigned char *block, size_t size, size_t byte)
{
    for (size_t i = 0; i < size; i++)
        if (block[i] != byte)
            return 0;
    return 1;
}

TEST(blocks_of_the_system_grow_and_shrink_across_the_size_that_is_mapped)
{
    static const size_t sizes[] = {100, PARTS_MAPPED,    3 * PARTS_MAPPED, PARTS_MAPPED + 1,
                                   50,  2 * PARTS_MAPPED};
    struct memory memory;
    size_t size = 10;
    memory_init(&memory, NULL, 0);
    unsigned char *block = memory_alloc(&memory, size);
    CHECK(block != NULL);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        memset(block, 7 + (int)i, size);
        unsigned char *moved = memory_resize(&memory, block, size, sizes[i]);
        CHECK(moved != NULL);
        block = moved;
        CHECK(parts_is_filled(block, size < sizes[i] ? size : sizes[i], 7 + i));
        size = sizes[i];
    }
    /* more than there is: the block stays */
    memset(block, 7, size);
    CHECK(memory_resize(&memory, block, size, SIZE_MAX / 2) == NULL);
    CHECK(memory_resize(&memory, block, size, SIZE_MAX - 1) == NULL);
    CHECK(parts_is_filled(block, size, 7));
    memory_free(&memory, block, size);
    CHECK_EQ_INT(atomic_load(&memory.used), 0);
}

TEST(a_block_of_no_bytes_is_one_that_can_be_resized)
{
    struct memory memory;
    memory_init(&memory, NULL, 0);
    void *block = memory_alloc(&memory, 0);
    CHECK(block != NULL);
    block = memory_resize(&memory, block, 0, 100);
    CHECK(block != NULL);
    block = memory_resize(&memory, block, 100, 0);
    CHECK(block != NULL);
    memory_free(&memory, block, 0);
    CHECK_EQ_INT(atomic_load(&memory.used), 0);
}

#if defined(MADV_HUGEPAGE)
/* Takes the place of the C library's; what is advised is not needed here. */
static struct {
    int calls, advice;
    uintptr_t first, end;
} parts_advised;

int madvise(void *address, size_t size, int advice)
{
    parts_advised.calls++;
    parts_advised.advice = advice;
    parts_advised.first = (uintptr_t)address;
    parts_advised.end = (uintptr_t)address + size;
    return 0;
}

/* Half a page and less at both ends is of others. */
TEST(huge_pages_are_asked_for_whole_pages_only)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *block = malloc(5 * page);
    CHECK(block != NULL);
    const uintptr_t first = ((uintptr_t)block + page - 1) / page * page;
    char *whole = block + (first - (uintptr_t)block);
    memset(&parts_advised, 0, sizeof parts_advised);
    platform_advise_huge(whole + page / 2, page);
    CHECK_EQ_INT(parts_advised.calls, 0);
    platform_advise_huge(whole + page / 2, 3 * page);
    CHECK_EQ_INT(parts_advised.calls, 1);
    CHECK_EQ_INT(parts_advised.advice, MADV_HUGEPAGE);
    CHECK(parts_advised.first == first + page && parts_advised.end == first + 3 * page);
    platform_advise_huge(whole, page);
    CHECK(parts_advised.first == first && parts_advised.end == first + page);
    free(block);
}
#else
TEST(huge_pages_are_asked_for_whole_pages_only)
{
    platform_advise_huge(NULL, 0);
}
#endif

TEST(what_is_spare_is_never_more_than_what_is_used)
{
    struct memory memory;
    memory_init(&memory, NULL, 0);
    memory.used = 100;
    memory.spare = 30;
    CHECK_EQ_INT(memory_used_firmly(&memory), 70);
    memory.spare = 130; /* as it looks while a copy is being given back */
    CHECK_EQ_INT(memory_used_firmly(&memory), 0);
}

/* ------------------------------------------------------------------------------------------------
 * files in memory */

TEST(names_in_memory_are_as_long_as_those_of_a_system)
{
    struct memory memory;
    omendb_vfs vfs;
    char name[300], text[64];
    void *directory = NULL, *file = NULL;
    memset(name, 'n', sizeof name);
    name[256] = '\0';
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(vfs_memory_create(&memory, &vfs), OMENDB_OK);
    CHECK_EQ_INT(vfs.open_directory(vfs.context, "x", 1, &directory), OMENDB_OK);
    CHECK_EQ_INT(
        vfs.open(vfs.context, directory, name, OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE, &file),
        OMENDB_IOERR);
    CHECK(file == NULL);
    name[255] = '\0';
    CHECK_EQ_INT(
        vfs.open(vfs.context, directory, name, OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE, &file),
        OMENDB_OK);
    CHECK_EQ_INT(vfs.write(vfs.context, file, 10, name, 0), OMENDB_OK);
    CHECK_EQ_INT(vfs.close(vfs.context, file), OMENDB_OK);
    memset(name, 'n', 256);
    char longer[300];
    memcpy(longer, name, 256);
    longer[256] = '\0';
    name[255] = '\0';
    CHECK_EQ_INT(vfs.rename(vfs.context, directory, name, longer), OMENDB_IOERR);
    CHECK_EQ_INT(vfs.identity(vfs.context, directory, text, 3), OMENDB_IOERR);
    CHECK_EQ_INT(vfs.unlink(vfs.context, directory, name), OMENDB_OK);
    vfs.close_directory(vfs.context, directory);
    vfs_memory_destroy(&vfs);
    CHECK_EQ_INT(atomic_load(&memory.used), 0);
}

static int parts_count_name(void *context, const char *name)
{
    *(int *)context += name[0] != '\0';
    return 0;
}

TEST(an_unlinked_file_in_memory_is_read_on_and_not_listed)
{
    struct memory memory;
    omendb_vfs vfs, none;
    void *directory = NULL, *file = NULL;
    char byte = 0;
    int names = 0;
    memset(&none, 0, sizeof none);
    vfs_memory_destroy(&none);
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(vfs_memory_create(&memory, &vfs), OMENDB_OK);
    CHECK_EQ_INT(vfs.open_directory(vfs.context, "x", 1, &directory), OMENDB_OK);
    CHECK_EQ_INT(vfs.open(vfs.context, directory, "f",
                          OMENDB_OPEN_READ | OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE, &file),
                 OMENDB_OK);
    CHECK_EQ_INT(vfs.write(vfs.context, file, 0, "a", 1), OMENDB_OK);
    CHECK_EQ_INT(vfs.list(vfs.context, directory, parts_count_name, &names), OMENDB_OK);
    CHECK_EQ_INT(names, 1);
    CHECK_EQ_INT(vfs.unlink(vfs.context, directory, "f"), OMENDB_OK);
    CHECK_EQ_INT(vfs.list(vfs.context, directory, parts_count_name, &names), OMENDB_OK);
    CHECK_EQ_INT(names, 1);
    CHECK_EQ_INT(vfs.read(vfs.context, file, 0, &byte, 1), OMENDB_OK);
    CHECK_EQ_INT(byte, 'a');
    CHECK_EQ_INT(vfs.close(vfs.context, file), OMENDB_OK);
    vfs.close_directory(vfs.context, directory);
    vfs_memory_destroy(&vfs);
    CHECK_EQ_INT(atomic_load(&memory.used), 0);
}

/* ------------------------------------------------------------------------------------------------
 * codes */

#define PARTS_DIM 8

/* The format that vectors of these two values, in turn, are given. */
static struct code_format parts_format(omendb_metric metric, float first, float step,
                                       unsigned levels)
{
    const struct scalar_format vectors = {
        .scalar = OMENDB_F32, .metric = metric, .dim = PARTS_DIM, .scale = 1.0f};
    struct code_format format = {0};
    struct code_sample sample = {0};
    struct memory memory;
    float vector[PARTS_DIM];
    memory_init(&memory, NULL, 0);
    if (codes_sample_begin(&sample, &memory) != OMENDB_OK)
        return format;
    for (unsigned i = 0; i < 2000; i++) { /* more than are of use */
        for (unsigned j = 0; j < PARTS_DIM; j++)
            vector[j] = first + step * (float)((i * PARTS_DIM + j) % levels);
        codes_sample_add(&sample, &vectors, vector);
    }
    codes_choose(&sample, &vectors, &format);
    codes_sample_end(&sample);
    return format;
}

TEST(integers_are_their_own_codes_where_they_fit)
{
    CHECK(parts_format(OMENDB_L2, 0.0f, 1.0f, 200).step == 1.0f);
    CHECK(parts_format(OMENDB_L2, 0.0f, 1.0f, 200).low == 0.0f);
    CHECK(parts_format(OMENDB_L2, 100.0f, 1.0f, 200).step == 1.0f);
    CHECK(parts_format(OMENDB_L2, -300.0f, 1.0f, 200).step == 1.0f);
    CHECK(parts_format(OMENDB_INNER_PRODUCT, -100.0f, 1.0f, 200).step == 1.0f);
    CHECK(parts_format(OMENDB_INNER_PRODUCT, -200.0f, 1.0f, 200).step != 1.0f);
    CHECK(parts_format(OMENDB_INNER_PRODUCT, 0.0f, 1.0f, 200).step != 1.0f);
    /* beyond 2^24 not every integer is a float */
    CHECK(parts_format(OMENDB_L2, 33554432.0f, 4.0f, 60).step != 1.0f);
    CHECK(parts_format(OMENDB_L2, -16777216.0f - 64.0f, 2.0f, 60).step != 1.0f);
}

TEST(ranges_that_no_code_can_serve_have_none)
{
    CHECK(parts_format(OMENDB_L2, 1e31f, 1e27f, 250).step == 0.0f);
    CHECK(parts_format(OMENDB_L2, 0.0f, 1e-35f, 250).step == 0.0f);
    CHECK(parts_format(OMENDB_L2, 0.0f, 1e30f, 250).step == 0.0f);
}

TEST(a_coarser_format_is_not_alike)
{
    const struct code_format format = parts_format(OMENDB_L2, 0.0f, 0.5f, 250);
    struct code_format other = format;
    CHECK(format.step > 0.0f);
    CHECK(codes_are_alike(&other, &format));
    other.step = format.step * 1.3f;
    CHECK(!codes_are_alike(&other, &format));
    other.step = format.step * 0.7f;
    CHECK(!codes_are_alike(&other, &format));
    other = format;
    other.low += 20.0f * format.step;
    CHECK(!codes_are_alike(&other, &format));
}

/* A vector of zeros has no direction; its code is that of zeros, and no division by zero. */
TEST(zero_vectors_have_codes_under_every_metric)
{
    static const float zeros[PARTS_DIM] = {0};
    static const omendb_metric metrics[] = {OMENDB_L2, OMENDB_COSINE, OMENDB_INNER_PRODUCT};
    uint8_t code[64];
    for (size_t i = 0; i < 3; i++) {
        const struct code_format format = {
            {.scalar = OMENDB_F32, .metric = metrics[i], .dim = PARTS_DIM, .scale = 1.0f},
            0.0f,
            1.0f};
        (void)codes_encode_query(&format, zeros, code);
        for (size_t at = 0; at < PARTS_DIM; at++)
            CHECK_EQ_INT(code[at], 0);
    }
}

/* ------------------------------------------------------------------------------------------------
 * curves */

static void parts_add(struct calibration *curve, uint32_t k, uint32_t ef, float stretch,
                      float recall)
{
    const struct calibration_entry rung = {.k = k, .ef = ef, .stretch = stretch, .cost = ef * 10};
    float recalls[100];
    for (size_t i = 0; i < 100; i++)
        recalls[i] = recall;
    calibration_add(curve, &rung, recalls, 100);
}

TEST(a_curve_takes_what_it_has_room_for_and_nothing_of_no_queries)
{
    struct calibration curve = {.rows = 1000, .queries = 100};
    const struct calibration_entry rung = {.k = 10, .ef = 10, .cost = 1};
    calibration_add(&curve, &rung, NULL, 0);
    CHECK_EQ_INT(curve.count, 0);
    CHECK_EQ_INT(calibration_bytes(&curve), 0);
    for (uint32_t i = 0; i < CALIBRATION_MAX_ENTRIES + 5; i++)
        parts_add(&curve, 10, 10 + i, 0.0f, 0.5f + 0.4f * (float)i / CALIBRATION_MAX_ENTRIES);
    CHECK_EQ_INT(curve.count, CALIBRATION_MAX_ENTRIES);
    CHECK(calibration_is_legal(&curve));
    curve.count++;
    CHECK(!calibration_is_legal(&curve));
    curve.count = 1;
    curve.entries[0].mean = 1.5f;
    CHECK(!calibration_is_legal(&curve));
    CHECK(!calibration_length_is_legal(
        FORMAT_CALIBRATION_BYTES + (uint64_t)(CALIBRATION_MAX_ENTRIES + 1) * FORMAT_CURVE_BYTES));
    CHECK(!calibration_length_is_legal(FORMAT_CALIBRATION_BYTES));
}

/* Nothing found at all: the bound is 0 and not below it. */
TEST(a_curve_of_bad_searches_stays_within_0_and_1)
{
    struct calibration curve = {.rows = 1000, .queries = 100};
    parts_add(&curve, 1, 10, 0.0f, 0.0f);
    CHECK_EQ_INT(curve.count, 1);
    CHECK(curve.entries[0].low == 0.0f && curve.entries[0].mean == 0.0f);
    CHECK(calibration_is_legal(&curve));
}

/* Only walks by stretch were measured: efforts are told by them alone. */
TEST(a_curve_without_efs_tells_by_stretch)
{
    struct calibration curve = {.rows = 1000, .queries = 100};
    struct calibration_answer answer;
    parts_add(&curve, 1, 2000, 1.1f, 0.80f);
    parts_add(&curve, 1, 2000, 1.3f, 0.95f);
    parts_add(&curve, 10, 2000, 1.1f, 0.70f);
    parts_add(&curve, 10, 2000, 1.3f, 0.90f);
    CHECK(calibration_is_legal(&curve));
    const float low = curve.entries[0].low, high = curve.entries[1].low;
    calibration_find_effort(&curve, 1, high, &answer);
    CHECK(answer.stretch == 1.3f && answer.recall == high);
    calibration_find_effort(&curve, 1, (low + high) / 2.0f, &answer);
    CHECK(answer.stretch > 1.15f && answer.stretch < 1.25f);
    calibration_find_recall(&curve, 1, 2000, 1.3f, &answer);
    CHECK(answer.recall == high);
    for (size_t k = 1; k <= 20; k += 3) {
        for (int recall = 1; recall <= 10; recall++) {
            calibration_find_effort(&curve, k, (float)recall / 10.0f, &answer);
            CHECK(answer.stretch >= 1.0f && answer.recall <= 1.0f);
        }
        calibration_find_recall(&curve, k, 2000, 1.2f, &answer);
        CHECK(answer.recall >= 0.0f && answer.recall <= 1.0f);
        calibration_find_recall(&curve, k, 100, 0.0f, &answer);
        CHECK(answer.recall == 0.0f);
    }
}

TEST_MAIN(what_is_spare_is_never_more_than_what_is_used,
          an_unlinked_file_in_memory_is_read_on_and_not_listed,
          a_long_sentence_of_broken_characters_is_cut_all_the_same,
          blocks_of_the_system_grow_and_shrink_across_the_size_that_is_mapped,
          a_block_of_no_bytes_is_one_that_can_be_resized, huge_pages_are_asked_for_whole_pages_only,
          names_in_memory_are_as_long_as_those_of_a_system,
          integers_are_their_own_codes_where_they_fit, ranges_that_no_code_can_serve_have_none,
          a_coarser_format_is_not_alike, zero_vectors_have_codes_under_every_metric,
          a_curve_takes_what_it_has_room_for_and_nothing_of_no_queries,
          a_curve_of_bad_searches_stays_within_0_and_1, a_curve_without_efs_tells_by_stretch)
