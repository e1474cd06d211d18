/* test_codes.c: vectors as one byte an element: what is exact, how large the error is, what order
 * is kept. */
#include "internals.h"

#include "test.h"

#include <stdlib.h>

#define ROWS 2000
#define DIM  100 /* not a whole number of strides */

static uint64_t random_state = 1;

static float random_unit(void)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (float)(random_state >> 40) / (float)(1 << 24);
}

static float rows[ROWS][DIM];
static struct memory memory;

static void fill(float low, float high)
{
    for (size_t row = 0; row < ROWS; row++)
        for (size_t i = 0; i < DIM; i++)
            rows[row][i] = low + (high - low) * random_unit();
}

static struct scalar_format format_of(omendb_metric metric)
{
    return (struct scalar_format){OMENDB_F32, metric, DIM, 1.0f};
}

/* The range that a sample of the rows gives. */
static struct code_format choose(omendb_metric metric)
{
    const struct scalar_format vectors = format_of(metric);
    struct code_sample sample;
    struct code_format format;
    memory_init(&memory, NULL, 0);
    if (codes_sample_begin(&sample, &memory) != OMENDB_OK)
        abort();
    for (size_t row = 0; row < ROWS && row < CODES_SAMPLE_VECTORS; row++)
        codes_sample_add(&sample, &vectors, rows[row]);
    codes_choose(&sample, &vectors, &format);
    codes_sample_end(&sample);
    if (memory.used != 0)
        abort();
    return format;
}

/* How many of the ten nearest rows of `query` are among the ten nearest by their codes. */
static int shared_neighbours(const struct code_format *format, const float *query)
{
    static uint8_t code[DIM + 32], asked[DIM + 32];
    static float by_vector[ROWS], by_code[ROWS];
    const struct kernel *exact = kernels_for(OMENDB_F32, format->vectors.metric);
    const struct kernel *coded = codes_kernel(format);
    int shared = 0;
    codes_encode_query(format, query, asked);
    for (size_t row = 0; row < ROWS; row++) {
        codes_encode(format, rows[row], code);
        by_vector[row] = exact->pair(query, rows[row], DIM);
        by_code[row] = coded->pair(asked, code, DIM);
    }
    for (size_t row = 0; row < ROWS; row++) {
        size_t nearer = 0, nearer_by_code = 0;
        for (size_t other = 0; other < ROWS; other++) {
            nearer += by_vector[other] < by_vector[row];
            nearer_by_code += by_code[other] < by_code[row];
        }
        shared += nearer < 10 && nearer_by_code < 10;
    }
    return shared;
}

TEST(bytes_given_as_floats_lose_nothing)
{
    uint8_t code[DIM + 32], other[DIM + 32];
    fill(0.0f, 255.99f);
    for (size_t row = 0; row < ROWS; row++)
        for (size_t i = 0; i < DIM; i++)
            rows[row][i] = floorf(rows[row][i]);
    rows[CODES_SAMPLE_VECTORS + 1][3] = 255.0f; /* outside of the sample */
    rows[CODES_SAMPLE_VECTORS + 1][4] = 0.0f;
    const struct code_format format = choose(OMENDB_L2);
    CHECK(format.low == 0.0f && format.step == 1.0f);
    CHECK(codes_are_exact(&format));
    for (size_t row = 0; row < ROWS; row++) {
        CHECK(codes_encode(&format, rows[row], code) == CODE_EXACT);
        for (size_t i = 0; i < DIM; i++)
            CHECK(code[i] == (uint8_t)rows[row][i]);
    }
    codes_encode_query(&format, rows[0], other);
    CHECK(codes_kernel(&format)->pair(other, code, DIM) ==
          kernels_for(OMENDB_F32, OMENDB_L2)->pair(rows[0], rows[ROWS - 1], DIM));
    rows[0][7] += 0.5f;
    CHECK(codes_encode(&format, rows[0], code) != CODE_EXACT);
    rows[0][7] = 256.0f;
    CHECK(codes_encode(&format, rows[0], code) != CODE_EXACT);
    CHECK_EQ_INT(code[7], 255);
}

TEST(small_integers_around_zero_lose_nothing)
{
    uint8_t code[DIM + 32];
    fill(-100.0f, 100.0f);
    for (size_t row = 0; row < ROWS; row++)
        for (size_t i = 0; i < DIM; i++)
            rows[row][i] = floorf(rows[row][i]);
    for (int metric = 0; metric < 2; metric++) {
        const struct code_format format = choose(metric ? OMENDB_INNER_PRODUCT : OMENDB_L2);
        CHECK(format.step == 1.0f);
        for (size_t row = 0; row < ROWS; row++)
            CHECK(codes_encode(&format, rows[row], code) == CODE_EXACT);
    }
}

TEST(the_error_of_elements_inside_the_range_is_at_most_half_a_step)
{
    uint8_t code[DIM + 32];
    fill(-3.0f, 5.0f);
    int saturated = 0;
    const struct code_format format = choose(OMENDB_L2);
    CHECK(format.step > 7.9f / 255.0f && format.step < 8.1f / 255.0f);
    for (size_t row = 0; row < ROWS; row++) {
        CHECK(codes_encode(&format, rows[row], code) == CODE_GOOD);
        for (size_t i = 0; i < DIM; i++) {
            const float value = format.low + format.step * (float)code[i];
            const int outside = rows[row][i] < format.low || code[i] == 255;
            CHECK(outside || fabsf(value - rows[row][i]) <= 0.502f * format.step);
            saturated += outside;
        }
        for (size_t i = DIM; i < codes_stride(DIM); i++)
            CHECK_EQ_INT(code[i], 0);
    }
    CHECK(saturated < ROWS * DIM / 100);
}

TEST(rare_large_values_do_not_cost_the_others_their_precision)
{
    fill(-1.0f, 1.0f);
    for (size_t row = 0; row < ROWS; row += 100)
        rows[row][row % DIM] = 100.0f;
    const struct code_format format = choose(OMENDB_L2);
    CHECK(format.step < 4.0f / 255.0f);
}

TEST(mostly_zero_vectors_are_coded_by_what_is_not_zero)
{
    fill(-1e-6f, 1e-6f);
    for (size_t row = 0; row < ROWS; row++)
        for (size_t i = 0; i < 2; i++)
            rows[row][(row * 7 + i * 31) % DIM] = 0.5f + 0.5f * random_unit();
    const struct code_format format = choose(OMENDB_L2);
    CHECK(format.step > 0.7f / 255.0f);
}

TEST(vectors_of_another_range_are_told)
{
    uint8_t code[DIM + 32];
    fill(0.0f, 1.0f);
    const struct code_format format = choose(OMENDB_L2);
    CHECK(codes_encode(&format, rows[0], code) == CODE_GOOD);
    for (size_t i = 0; i < DIM; i++)
        rows[0][i] = 50.0f + random_unit();
    CHECK(codes_encode(&format, rows[0], code) == CODE_POOR);
    for (size_t i = 0; i < DIM; i++)
        rows[0][i] = 0.5f + 0.001f * random_unit();
    CHECK(codes_encode(&format, rows[0], code) == CODE_POOR);
}

/* A range that begins at zero covers zeros, and the vector of zeros needs no levels. */
TEST(zeros_do_not_make_a_code_poor)
{
    uint8_t code[DIM + 32];
    fill(0.0f, 1.0f);
    for (size_t row = 0; row < ROWS; row++)
        for (size_t i = 0; i < DIM; i++)
            rows[row][i] *= i % 10 == row % 10 ? 1.0f : 0.0f;
    const struct code_format format = choose(OMENDB_L2);
    for (size_t row = 0; row < ROWS; row++)
        CHECK(codes_encode(&format, rows[row], code) == CODE_GOOD);
    memset(rows[0], 0, sizeof rows[0]);
    CHECK(codes_encode(&format, rows[0], code) == CODE_GOOD);
    for (size_t i = 0; i < DIM; i++)
        rows[0][i] = 0.5f;
    CHECK(codes_encode(&format, rows[0], code) == CODE_POOR);
}

TEST(vectors_of_one_value_give_no_range)
{
    fill(0.0f, 0.0f);
    CHECK(choose(OMENDB_L2).step == 0.0f);
    CHECK(choose(OMENDB_INNER_PRODUCT).step == 0.0f);
}

TEST(neighbours_keep_their_order_under_every_metric)
{
    static const omendb_metric metrics[] = {OMENDB_L2, OMENDB_COSINE, OMENDB_INNER_PRODUCT};
    for (size_t m = 0; m < 3; m++) {
        int shared = 0;
        fill(m == 2 ? -1.0f : 0.2f, 1.0f);
        for (size_t row = 0; row < ROWS; row++) { /* lengths differ */
            const float length = 0.5f + random_unit();
            for (size_t i = 0; i < DIM; i++)
                rows[row][i] *= length;
        }
        const struct code_format format = choose(metrics[m]);
        for (size_t query = 0; query < 20; query++) {
            float asked[DIM];
            for (size_t i = 0; i < DIM; i++)
                asked[i] = (random_unit() - (m == 2 ? 0.5f : 0.0f)) * (m == 2 ? 1e-3f : 1.0f);
            shared += shared_neighbours(&format, asked);
        }
        CHECK(shared >= 170); /* of 200; random vectors have hardly any nearest ones */
    }
}

TEST(half_floats_are_coded_like_their_values)
{
    uint16_t halves[DIM];
    float values[DIM];
    uint8_t of_halves[DIM + 32], of_values[DIM + 32];
    fill(-1.0f, 1.0f);
    struct code_format format = choose(OMENDB_COSINE);
    for (size_t i = 0; i < DIM; i++) {
        halves[i] = scalar_f32_to_f16(rows[0][i]);
        values[i] = scalar_f16_to_f32(halves[i]);
    }
    codes_encode(&format, values, of_values);
    format.vectors.scalar = OMENDB_F16;
    codes_encode(&format, halves, of_halves);
    CHECK(memcmp(of_values, of_halves, codes_stride(DIM)) == 0);
}

TEST(values_without_a_range_have_no_codes_and_do_no_harm)
{
    static const float large[] = {3e38f, -3e38f, 1e-38f, 0.0f};
    uint8_t code[DIM + 32];
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        for (int metric = 0; metric < 2; metric++) {
            fill(0.0f, large[i]);
            struct code_format format = choose(metric ? OMENDB_INNER_PRODUCT : OMENDB_L2);
            CHECK(format.step == 0.0f || (format.step > 1e-30f && format.step < 1e30f));
            format.step = format.step == 0.0f ? 1.0f : format.step;
            rows[1][0] = NAN;
            rows[1][1] = INFINITY;
            rows[1][2] = -INFINITY;
            codes_encode(&format, rows[1], code);
            codes_encode_query(&format, rows[1], code);
        }
    }
    struct code_sample sample = {0};
    struct code_format format;
    const struct scalar_format vectors = format_of(OMENDB_L2);
    codes_choose(&sample, &vectors, &format);
    CHECK(format.step == 0.0f);
}

TEST(only_floats_have_codes)
{
    struct scalar_format format = format_of(OMENDB_L2);
    static const omendb_scalar with[] = {OMENDB_F32, OMENDB_F16, OMENDB_BF16};
    static const omendb_scalar without[] = {OMENDB_I8, OMENDB_U8, OMENDB_B1};
    for (size_t i = 0; i < 3; i++) {
        format.scalar = with[i];
        CHECK(codes_apply_to(&format));
        format.scalar = without[i];
        CHECK(!codes_apply_to(&format));
    }
    format.scalar = OMENDB_F32; /* a code is no smaller */
    format.dim = 8;
    CHECK(!codes_apply_to(&format));
    format.dim = 9;
    CHECK(codes_apply_to(&format));
    format.scalar = OMENDB_BF16;
    format.dim = 16;
    CHECK(!codes_apply_to(&format));
}

#define DRIFT_DIM  16
#define DRIFT_ROWS 4000

/* How many of 20 * 10 true nearest a collection finds; queries lie where the later rows are. */
static size_t drift_found(omendb_collection *collection)
{
    omendb_query query = OMENDB_QUERY_INIT;
    uint64_t ids[10], exact[10];
    float vector[DRIFT_DIM];
    size_t count, shared = 0;
    query.vector = vector;
    for (int i = 0; i < 20; i++) {
        for (size_t j = 0; j < DRIFT_DIM; j++)
            vector[j] = 50.0f + 50.0f * random_unit();
        query.exact = 0;
        if (omendb_search(collection, NULL, &query, ids, NULL, &count) != OMENDB_OK)
            return 0;
        query.exact = 1;
        if (omendb_search(collection, NULL, &query, exact, NULL, &count) != OMENDB_OK)
            return 0;
        for (size_t a = 0; a < 10; a++)
            for (size_t b = 0; b < 10; b++)
                shared += ids[a] == exact[b];
    }
    return shared;
}

/* Lets the background link what it will. */
static void drift_wait(omendb *db, omendb_collection *collection)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    for (int more = 1; more && omendb_collection_get_stats(collection, &stats) == OMENDB_OK &&
                       stats.unindexed_rows != 0;)
        if (omendb_work(db, 100000, &more) != OMENDB_OK)
            break;
}

/* The first rows decide the range; those that come later lie elsewhere. */
TEST(rows_that_leave_the_first_range_are_found)
{
    static float vectors[DRIFT_ROWS * DRIFT_DIM];
    for (int first = 0; first < 2; first++) {
        omendb_options options = OMENDB_OPTIONS_INIT;
        omendb_schema schema = OMENDB_SCHEMA_INIT;
        omendb *db;
        omendb_collection *collection;
        schema.dim = DRIFT_DIM;
        schema.ef = 128;
        options.threads = 0;
        CHECK_EQ_INT(omendb_open(":memory:", &options, &db), OMENDB_OK);
        CHECK_EQ_INT(omendb_collection_create(db, "c", &schema, &collection), OMENDB_OK);
        for (size_t i = 0; i < 300 * DRIFT_DIM; i++)
            vectors[i] = first == 0 ? 0.0f : random_unit();
        CHECK_EQ_INT(omendb_add_batch(collection, NULL, 300, NULL, vectors, OMENDB_F32, NULL),
                     OMENDB_OK);
        for (size_t i = 0; i < DRIFT_ROWS * DRIFT_DIM; i++)
            vectors[i] = 50.0f + 50.0f * random_unit();
        for (size_t i = 0; i < DRIFT_ROWS; i += 100)
            CHECK_EQ_INT(omendb_add_batch(collection, NULL, 100, NULL, vectors + i * DRIFT_DIM,
                                          OMENDB_F32, NULL),
                         OMENDB_OK);
        drift_wait(db, collection);
        CHECK(drift_found(collection) >= 180);
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
        CHECK(drift_found(collection) >= 180);
        CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
        CHECK(drift_found(collection) >= 180);
        omendb_collection_close(collection);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    }
}

TEST_MAIN(bytes_given_as_floats_lose_nothing, small_integers_around_zero_lose_nothing,
          the_error_of_elements_inside_the_range_is_at_most_half_a_step,
          rare_large_values_do_not_cost_the_others_their_precision,
          mostly_zero_vectors_are_coded_by_what_is_not_zero, vectors_of_another_range_are_told,
          zeros_do_not_make_a_code_poor, vectors_of_one_value_give_no_range,
          neighbours_keep_their_order_under_every_metric, half_floats_are_coded_like_their_values,
          values_without_a_range_have_no_codes_and_do_no_harm, only_floats_have_codes,
          rows_that_leave_the_first_range_are_found)
