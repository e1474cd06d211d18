/* test_scalar.c: element types: conversion, what is refused, and reading back. */
#include "internals.h"

#include <stdbool.h>

#include "test.h"

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The value of an f16 by the definition of the format. */
static double f16_value(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const double magnitude =
        exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);

    return bits & 0x8000 ? -magnitude : magnitude;
}

static bool is_nan16(uint16_t bits, uint16_t infinity)
{
    return (bits & 0x7fff) > infinity;
}

TEST(every_f16_widens_to_its_value_and_back)
{
    for (uint32_t bits = 0; bits <= 0xffff; bits++) {
        const float value = scalar_f16_to_f32((uint16_t)bits);
        if (is_nan16((uint16_t)bits, 0x7c00)) {
            CHECK(isnan(value));
            CHECK(is_nan16(scalar_f32_to_f16(value), 0x7c00));
        } else if ((bits & 0x7fff) == 0x7c00) {
            CHECK(isinf(value) && (value < 0) == (bits > 0x7fff));
            CHECK_EQ_INT(scalar_f32_to_f16(value), bits);
        } else {
            CHECK((double)value == f16_value((uint16_t)bits));
            CHECK_EQ_INT(scalar_f32_to_f16(value), bits);
        }
    }
}

/* Between two neighbours of the narrow type: just under, at, and just over the middle. */
TEST(f16_rounds_to_nearest_and_ties_to_even)
{
    for (uint32_t bits = 0; bits < 0x7bff; bits++) {
        const double low = f16_value((uint16_t)bits), high = f16_value((uint16_t)(bits + 1));
        const float middle = (float)((low + high) / 2);
        const uint16_t even = (uint16_t)(bits % 2 == 0 ? bits : bits + 1);
        CHECK_EQ_INT(scalar_f32_to_f16(middle), even);
        CHECK_EQ_INT(scalar_f32_to_f16(-middle), even | 0x8000);
        CHECK_EQ_INT(scalar_f32_to_f16(nextafterf(middle, 0.0f)), bits);
        CHECK_EQ_INT(scalar_f32_to_f16(nextafterf(middle, 1e9f)), bits + 1);
    }
    CHECK_EQ_INT(scalar_f32_to_f16(65519.0f), 0x7bff);
    CHECK_EQ_INT(scalar_f32_to_f16(65520.0f), 0x7c00);
    CHECK_EQ_INT(scalar_f32_to_f16(3e38f), 0x7c00);
    CHECK_EQ_INT(scalar_f32_to_f16(float_of_bits(1)), 0);
}

TEST(every_bf16_widens_to_its_value_and_back)
{
    for (uint32_t bits = 0; bits <= 0xffff; bits++) {
        const float value = scalar_bf16_to_f32((uint16_t)bits);
        if (is_nan16((uint16_t)bits, 0x7f80)) {
            CHECK(isnan(value));
            CHECK(is_nan16(scalar_f32_to_bf16(value), 0x7f80));
        } else {
            CHECK(memcmp(&value, &(uint32_t){bits << 16}, 4) == 0);
            CHECK_EQ_INT(scalar_f32_to_bf16(value), bits);
        }
    }
}

TEST(bf16_rounds_to_nearest_and_ties_to_even)
{
    CHECK_EQ_INT(scalar_f32_to_bf16(float_of_bits(0x3f808000)), 0x3f80);
    CHECK_EQ_INT(scalar_f32_to_bf16(float_of_bits(0x3f808001)), 0x3f81);
    CHECK_EQ_INT(scalar_f32_to_bf16(float_of_bits(0x3f818000)), 0x3f82);
    CHECK_EQ_INT(scalar_f32_to_bf16(float_of_bits(0x3f817fff)), 0x3f81);
    CHECK_EQ_INT(scalar_f32_to_bf16(float_of_bits(0x7f7fffff)), 0x7f80);
    CHECK_EQ_INT(scalar_f32_to_bf16(float_of_bits(0x7f800001)), 0x7fc0);
}

TEST(sizes_are_those_of_packed_vectors)
{
    CHECK_EQ_INT(scalar_bytes(OMENDB_F32, 3), 12);
    CHECK_EQ_INT(scalar_bytes(OMENDB_F16, 3), 6);
    CHECK_EQ_INT(scalar_bytes(OMENDB_BF16, 3), 6);
    CHECK_EQ_INT(scalar_bytes(OMENDB_I8, 3), 3);
    CHECK_EQ_INT(scalar_bytes(OMENDB_U8, 3), 3);
    CHECK_EQ_INT(scalar_bytes(OMENDB_B1, 8), 1);
    CHECK_EQ_INT(scalar_bytes(OMENDB_B1, 9), 2);
}

/* Converts f32 values and compares code, reason and position. */
static void check_refused(struct scalar_format format, const float *values, const char *expected,
                          size_t expected_position)
{
    unsigned char out[4096];
    const char *reason = "";
    size_t position = 0;

    CHECK_EQ_INT(scalar_convert(&format, values, OMENDB_F32, out, &reason, &position),
                 OMENDB_INVALID);
    if (strstr(reason, expected) == NULL) {
        fprintf(stderr, "the reason is: %s\n", reason);
    }
    CHECK(strstr(reason, expected) != NULL);
    CHECK(position == expected_position);
}

static void check_accepted(struct scalar_format format, const void *values, omendb_scalar from,
                           void *out)
{
    const char *reason = NULL;
    size_t position = 0;
    const int code = scalar_convert(&format, values, from, out, &reason, &position);

    if (code != OMENDB_OK) {
        fprintf(stderr, "refused: %s\n", reason);
    }
    CHECK_EQ_INT(code, OMENDB_OK);
}

TEST(nan_and_infinity_are_refused_wherever_they_are)
{
    static const omendb_scalar types[] = {OMENDB_F32, OMENDB_F16, OMENDB_BF16,
                                          OMENDB_I8,  OMENDB_U8,  OMENDB_B1};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    float values[200];

    for (size_t type = 0; type < 6; type++) {
        for (size_t at = 0; at < 200; at++) {
            const omendb_metric metric = types[type] == OMENDB_B1 ? OMENDB_HAMMING : OMENDB_L2;
            for (size_t i = 0; i < 200; i++) {
                values[i] = 1.0f;
            }
            values[at] = bad[at % 3];
            check_refused((struct scalar_format){types[type], metric, 200, 1.0f}, values,
                          "NaN or infinite", at);
        }
    }
}

TEST(overflow_of_the_narrow_floats_is_refused)
{
    const float f16[] = {1.0f, 65519.0f, 65520.0f}, bf16[] = {1.0f, -3.4e38f, 0.0f};
    unsigned char out[8];

    check_refused((struct scalar_format){OMENDB_F16, OMENDB_L2, 3, 1.0f}, f16, "does not fit f16",
                  2);
    check_accepted((struct scalar_format){OMENDB_F16, OMENDB_L2, 2, 1.0f}, f16, OMENDB_F32, out);
    check_refused((struct scalar_format){OMENDB_BF16, OMENDB_COSINE, 3, 1.0f}, bf16,
                  "does not fit bf16", 1);
}

TEST(norms_that_break_a_metric_are_refused)
{
    const struct scalar_format l2 = {OMENDB_F32, OMENDB_L2, 2, 1.0f};
    const struct scalar_format ip = {OMENDB_F32, OMENDB_INNER_PRODUCT, 2, 1.0f};
    const struct scalar_format cosine = {OMENDB_F32, OMENDB_COSINE, 2, 1.0f};
    const struct scalar_format i8 = {OMENDB_I8, OMENDB_COSINE, 2, 1.0f};
    const struct scalar_format f16 = {OMENDB_F16, OMENDB_COSINE, 2, 1.0f};
    const float zero[] = {0.0f, -0.0f}, tiny[] = {1e-20f, 1e-20f}, small[] = {2e-19f, 0.0f};
    const float large[] = {9.3e18f, 0.0f}, huge[] = {1.9e19f, 0.0f}, third[] = {0.3f, 0.3f};
    float out[2];

    check_refused(cosine, zero, "is zero", SIZE_MAX);
    check_refused(cosine, tiny, "underflows", SIZE_MAX);
    check_refused(cosine, huge, "overflows", SIZE_MAX);
    check_accepted(cosine, small, OMENDB_F32, out);
    check_accepted(cosine, large, OMENDB_F32, out);
    check_refused(l2, large, "overflows", SIZE_MAX);
    check_refused(ip, large, "overflows", SIZE_MAX);
    check_accepted(l2, zero, OMENDB_F32, out);
    check_accepted(ip, tiny, OMENDB_F32, out);
    check_refused(i8, third, "is zero", SIZE_MAX);
    check_refused(f16, tiny, "is zero", SIZE_MAX);
}

/* What scalar_convert accepts at the edge gives finite distances. */
TEST(the_largest_accepted_norms_give_finite_distances)
{
    const float side = 9.2e18f, a[] = {side, 0.0f}, b[] = {-side, 0.0f};
    const struct scalar_format l2 = {OMENDB_F32, OMENDB_L2, 2, 1.0f};
    float stored[2];

    check_accepted(l2, a, OMENDB_F32, stored);
    CHECK(isfinite(kernels_for(OMENDB_F32, OMENDB_L2)->pair(a, b, 2)));
    CHECK(isfinite(kernels_for(OMENDB_F32, OMENDB_INNER_PRODUCT)->pair(a, b, 2)));
    CHECK(kernels_for(OMENDB_F32, OMENDB_COSINE)->pair(a, b, 2) == 2.0f);
}

TEST(integers_are_scaled_rounded_to_even_and_saturated)
{
    const float values[] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.6f, 127.5f, 1e30f, -128.4f, -1e30f};
    const int8_t expected[] = {0, 2, 2, 0, -2, 127, 127, 127, -128, -128};
    const uint8_t expected_u8[] = {0, 2, 2, 0, 0, 127, 128, 255, 0, 0};
    const float scaled[] = {0.01f, -0.505f, 2.0f};
    const int8_t expected_scaled[] = {1, -50, 127};
    int8_t i8[10];
    uint8_t u8[10];

    check_accepted((struct scalar_format){OMENDB_I8, OMENDB_L2, 10, 1.0f}, values, OMENDB_F32, i8);
    CHECK(memcmp(i8, expected, 10) == 0);
    check_accepted((struct scalar_format){OMENDB_U8, OMENDB_L2, 10, 1.0f}, values, OMENDB_F32, u8);
    CHECK(memcmp(u8, expected_u8, 10) == 0);
    check_accepted((struct scalar_format){OMENDB_I8, OMENDB_L2, 3, 100.0f}, scaled, OMENDB_F32, i8);
    CHECK(memcmp(i8, expected_scaled, 3) == 0);
}

TEST(the_same_type_is_stored_as_given_and_others_by_value)
{
    const uint8_t u8[] = {200, 3, 0};
    const int8_t i8[] = {-5, 100, 7};
    const uint16_t f16[] = {0x3c00, 0xc000, 0x0001}; /* 1, -2, 2^-24 */
    int8_t to_i8[3];
    uint8_t to_u8[3];
    uint16_t to_f16[3];
    float to_f32[3];

    check_accepted((struct scalar_format){OMENDB_U8, OMENDB_L2, 3, 7.0f}, u8, OMENDB_U8, to_u8);
    CHECK(memcmp(to_u8, u8, 3) == 0);
    check_accepted((struct scalar_format){OMENDB_I8, OMENDB_L2, 3, 1.0f}, u8, OMENDB_U8, to_i8);
    CHECK(to_i8[0] == 127 && to_i8[1] == 3 && to_i8[2] == 0);
    check_accepted((struct scalar_format){OMENDB_I8, OMENDB_L2, 3, 0.5f}, u8, OMENDB_U8, to_i8);
    CHECK(to_i8[0] == 100 && to_i8[1] == 2 && to_i8[2] == 0);
    check_accepted((struct scalar_format){OMENDB_U8, OMENDB_L2, 3, 2.0f}, i8, OMENDB_I8, to_u8);
    CHECK(to_u8[0] == 0 && to_u8[1] == 200 && to_u8[2] == 14);
    check_accepted((struct scalar_format){OMENDB_F16, OMENDB_L2, 3, 1.0f}, f16, OMENDB_F16, to_f16);
    CHECK(memcmp(to_f16, f16, sizeof f16) == 0);
    check_accepted((struct scalar_format){OMENDB_F32, OMENDB_L2, 3, 1.0f}, f16, OMENDB_F16, to_f32);
    CHECK(to_f32[0] == 1.0f && to_f32[1] == -2.0f && to_f32[2] == ldexpf(1.0f, -24));
}

TEST(bits_come_from_bits_and_from_signs)
{
    const struct scalar_format bits = {OMENDB_B1, OMENDB_HAMMING, 11, 1.0f};
    const struct scalar_format f32 = {OMENDB_F32, OMENDB_L2, 11, 1.0f};
    const unsigned char packed[] = {0xa5, 0xff};
    const float values[] = {1, -1, 0.5f, 0, -0.0f, 2, 3, -4, 1e-30f, -1e-30f, 9};
    const int8_t integers[] = {1, -1, 5, 0, 0, 2, 3, -4, 1, -1, 9};
    unsigned char out[44] = {0};
    const char *reason = "";
    size_t position = 0;

    check_accepted(bits, packed, OMENDB_B1, out);
    CHECK(out[0] == 0xa5 && out[1] == 0x07);
    check_accepted(bits, values, OMENDB_F32, out);
    CHECK(out[0] == 0x65 && out[1] == 0x05);
    check_accepted(bits, integers, OMENDB_I8, out);
    CHECK(out[0] == 0x65 && out[1] == 0x05);
    CHECK_EQ_INT(scalar_convert(&f32, packed, OMENDB_B1, out, &reason, &position), OMENDB_INVALID);
    CHECK(strstr(reason, "packed bits") != NULL && position == SIZE_MAX);
    CHECK_EQ_INT(scalar_convert(&f32, packed, (omendb_scalar)6, out, &reason, &position),
                 OMENDB_INVALID);
    CHECK(strstr(reason, "unknown") != NULL);
}

/* Every stored type, over dimensions that end within a run of 64. */
TEST(f32_reads_back_what_was_stored)
{
    static const omendb_scalar types[] = {OMENDB_F32, OMENDB_F16, OMENDB_BF16,
                                          OMENDB_I8,  OMENDB_U8,  OMENDB_B1};
    float values[200], back[200];
    unsigned char stored[800];

    for (size_t dim = 1; dim <= 200; dim++) {
        for (size_t type = 0; type < 6; type++) {
            const struct scalar_format format = {
                types[type], types[type] == OMENDB_B1 ? OMENDB_HAMMING : OMENDB_L2, dim, 4.0f};
            for (size_t i = 0; i < dim; i++) {
                values[i] = types[type] == OMENDB_B1 ? (float)(i % 3 == 0) : (float)(i % 32) / 4;
            }
            check_accepted(format, values, OMENDB_F32, stored);
            CHECK_EQ_INT(scalar_export(&format, stored, OMENDB_F32, back), OMENDB_OK);
            CHECK(memcmp(values, back, dim * sizeof *values) == 0);
        }
    }
}

TEST(other_types_are_read_only_where_nothing_is_lost)
{
    const struct scalar_format i8 = {OMENDB_I8, OMENDB_L2, 3, 1.0f};
    const struct scalar_format scaled = {OMENDB_I8, OMENDB_L2, 3, 2.0f};
    const struct scalar_format f32 = {OMENDB_F32, OMENDB_L2, 3, 1.0f};
    const struct scalar_format bits = {OMENDB_B1, OMENDB_HAMMING, 3, 1.0f};
    const int8_t stored[12] = {-128, 5, 127};
    const unsigned char packed = 0x05;
    uint16_t halves[3];
    uint8_t bytes[3];
    float floats[3];

    CHECK_EQ_INT(scalar_export(&i8, stored, OMENDB_F16, halves), OMENDB_OK);
    CHECK(halves[0] == 0xd800 && scalar_f16_to_f32(halves[2]) == 127.0f);
    CHECK_EQ_INT(scalar_export(&i8, stored, OMENDB_BF16, halves), OMENDB_OK);
    CHECK(scalar_bf16_to_f32(halves[0]) == -128.0f && scalar_bf16_to_f32(halves[2]) == 127.0f);
    CHECK_EQ_INT(scalar_export(&i8, stored, OMENDB_I8, bytes), OMENDB_OK);
    CHECK(memcmp(bytes, stored, 3) == 0);
    CHECK_EQ_INT(scalar_export(&scaled, stored, OMENDB_F32, floats), OMENDB_OK);
    CHECK(floats[0] == -64.0f && floats[1] == 2.5f && floats[2] == 63.5f);
    CHECK_EQ_INT(scalar_export(&bits, &packed, OMENDB_U8, bytes), OMENDB_OK);
    CHECK(bytes[0] == 1 && bytes[1] == 0 && bytes[2] == 1);
    CHECK_EQ_INT(scalar_export(&scaled, stored, OMENDB_F16, halves), OMENDB_INVALID);
    CHECK_EQ_INT(scalar_export(&i8, stored, OMENDB_U8, bytes), OMENDB_INVALID);
    CHECK_EQ_INT(scalar_export(&f32, stored, OMENDB_F16, halves), OMENDB_INVALID);
    CHECK_EQ_INT(scalar_export(&i8, stored, OMENDB_B1, bytes), OMENDB_INVALID);
}

TEST(distances_of_scaled_integers_return_to_the_users_units)
{
    const struct scalar_format l2 = {OMENDB_I8, OMENDB_L2, 3, 10.0f};
    const struct scalar_format cosine = {OMENDB_U8, OMENDB_COSINE, 3, 10.0f};
    const struct scalar_format f32 = {OMENDB_F32, OMENDB_L2, 3, 10.0f};
    const float a[] = {1.0f, 2.0f, 3.0f}, b[] = {0.5f, 2.5f, -3.0f};
    int8_t x[3], y[3];
    float distance;

    check_accepted(l2, a, OMENDB_F32, x);
    check_accepted(l2, b, OMENDB_F32, y);
    distance = kernels_for(OMENDB_I8, OMENDB_L2)->pair(x, y, 3) * scalar_distance_factor(&l2);
    CHECK(fabsf(distance - 36.5f) < 1e-5f);
    CHECK(scalar_distance_factor(&cosine) == 1.0f);
    CHECK(scalar_distance_factor(&f32) == 1.0f);
}

TEST_MAIN(every_f16_widens_to_its_value_and_back, f16_rounds_to_nearest_and_ties_to_even,
          every_bf16_widens_to_its_value_and_back, bf16_rounds_to_nearest_and_ties_to_even,
          sizes_are_those_of_packed_vectors, nan_and_infinity_are_refused_wherever_they_are,
          overflow_of_the_narrow_floats_is_refused, norms_that_break_a_metric_are_refused,
          the_largest_accepted_norms_give_finite_distances,
          integers_are_scaled_rounded_to_even_and_saturated,
          the_same_type_is_stored_as_given_and_others_by_value, bits_come_from_bits_and_from_signs,
          f32_reads_back_what_was_stored, other_types_are_read_only_where_nothing_is_lost,
          distances_of_scaled_integers_return_to_the_users_units)
