/* scalar.c: sizes, validation and conversion of vectors.
 *
 * Invariant: a vector that scalar_convert accepted gives finite distances in every kernel. For that
 * its elements are finite, and its squared norm, taken in double over the values as stored, is at
 * most FLT_MAX / 4 under L2 and inner product (|a - b|^2 <= 2|a|^2 + 2|b|^2, and |a.b| <= |a||b|),
 * and between FLT_MIN and FLT_MAX under cosine, where a zero vector has no direction and a
 * subnormal square has lost its digits. Kernels therefore test for nothing.
 *
 * Vectors are worked on in runs of 64 elements: widen to f32, check, narrow, widen what was stored,
 * add to the norm. Every one of the six types is exact in f32, so the pairs of types need 6 + 6
 * loops and not 36, and each loop is simple enough for a compiler to vectorize.
 *
 * Rejected: conversion by F16C or AVX-512 instructions. Conversion happens once a vector, next to
 * microseconds of other work. Also rejected: rint(), a call for each element without SSE4.1; adding
 * and subtracting 1.5 * 2^52 rounds a double to nearest even by itself. */
#include "scalar.h"

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "OmenDB refuses NaN and infinity and rounds exactly; compile it without -ffast-math"
#endif

static const char scalar_reason_infinite[] = "is NaN or infinite";
static const char scalar_reason_bits[] =
    "is packed bits, which only a collection of bits under Hamming takes";
static const char scalar_reason_f16[] = "does not fit f16 (largest value 65504)";
static const char scalar_reason_bf16[] = "does not fit bf16 (largest value 3.3895e38)";
static const char scalar_reason_zero[] = "is zero, which has no direction under cosine";
static const char scalar_reason_tiny[] = "has a norm that underflows (smallest 1.0842e-19)";
static const char scalar_reason_huge[] = "has a norm that overflows (largest 9.2e18)";
static const char scalar_reason_type[] = "has an unknown element type";

static float scalar_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t scalar_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The magnitude moved to the place of f32's needs 112 added to its exponent; a subnormal one is
 * read as 2^-14 + m * 2^-24 and the 2^-14 taken off again, so that no f32 subnormal occurs, which a
 * program may have told its processor to flush to zero. */
OMENDB_INTERNAL float scalar_f16_to_f32(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    const uint32_t infinite = magnitude >= (0x7c00u << 13) ? 0x7f800000u : 0;
    const float subnormal = scalar_from_bits(magnitude + 0x38800000u) - 0x1p-14f;
    const uint32_t normal = (magnitude + 0x38000000u) | infinite;

    return scalar_from_bits((magnitude < (0x0400u << 13) ? scalar_to_bits(subnormal) : normal) |
                            sign);
}

OMENDB_INTERNAL uint16_t scalar_f32_to_f16(float value)
{
    const uint32_t bits = scalar_to_bits(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;

    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (magnitude >= 0x477ff000u) { /* 65520, halfway to what would be 65536 */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude <
        0x38800000u) { /* subnormal: adding 1/2 leaves units of 2^-24, rounded by the FPU */
        const float shifted = scalar_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (scalar_to_bits(shifted) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
}

OMENDB_INTERNAL float scalar_bf16_to_f32(uint16_t half)
{
    return scalar_from_bits((uint32_t)half << 16);
}

OMENDB_INTERNAL uint16_t scalar_f32_to_bf16(float value)
{
    const uint32_t bits = scalar_to_bits(value);

    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(bits >> 16 | 0x0040u);
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

OMENDB_INTERNAL size_t scalar_bytes(omendb_scalar scalar, size_t dim)
{
    switch (scalar) {
    case OMENDB_F32:
        return dim * 4;
    case OMENDB_F16:
    case OMENDB_BF16:
        return dim * 2;
    case OMENDB_I8:
    case OMENDB_U8:
        return dim;
    case OMENDB_B1:
        return (dim + 7) / 8;
    }
    return 0;
}

static uint16_t scalar_load16(const unsigned char *from, size_t i)
{
    uint16_t half;
    memcpy(&half, from + 2 * i, sizeof half);
    return half;
}

static void scalar_store16(unsigned char *out, size_t i, uint16_t half)
{
    memcpy(out + 2 * i, &half, sizeof half);
}

OMENDB_INTERNAL void scalar_widen(omendb_scalar type, const void *vector, size_t begin,
                                  size_t count, float *out)
{
    const unsigned char *from = vector;
    size_t i;

    switch (type) {
    case OMENDB_F32:
        memcpy(out, from + 4 * begin, 4 * count);
        break;
    case OMENDB_F16:
        for (i = 0; i < count; i++) {
            out[i] = scalar_f16_to_f32(scalar_load16(from, begin + i));
        }
        break;
    case OMENDB_BF16:
        for (i = 0; i < count; i++) {
            out[i] = scalar_bf16_to_f32(scalar_load16(from, begin + i));
        }
        break;
    case OMENDB_I8:
        for (i = 0; i < count; i++) {
            out[i] = (float)(int8_t)from[begin + i];
        }
        break;
    case OMENDB_U8:
        for (i = 0; i < count; i++) {
            out[i] = (float)from[begin + i];
        }
        break;
    case OMENDB_B1:
        for (i = 0; i < count; i++) {
            out[i] = (float)(from[(begin + i) / 8] >> ((begin + i) % 8) & 1);
        }
        break;
    }
}

/* value * scale, saturated to [low, high] and rounded to the nearest even integer. */
static double scalar_quantize(float value, double scale, double low, double high)
{
    const double scaled = (double)value * scale;
    const double saturated = scaled < low ? low : scaled > high ? high : scaled;

    return saturated + 0x1.8p52 - 0x1.8p52;
}

/* The reverse of scalar_widen for finite values; begin is a multiple of 8. */
static void scalar_narrow(const struct scalar_format *to, const float *values, size_t begin,
                          size_t count, unsigned char *out)
{
    size_t i;

    switch (to->scalar) {
    case OMENDB_F32:
        memcpy(out + 4 * begin, values, 4 * count);
        break;
    case OMENDB_F16:
        for (i = 0; i < count; i++) {
            scalar_store16(out, begin + i, scalar_f32_to_f16(values[i]));
        }
        break;
    case OMENDB_BF16:
        for (i = 0; i < count; i++) {
            scalar_store16(out, begin + i, scalar_f32_to_bf16(values[i]));
        }
        break;
    case OMENDB_I8:
        for (i = 0; i < count; i++) {
            const double stored = scalar_quantize(values[i], (double)to->scale, -128, 127);
            out[begin + i] = (unsigned char)(int8_t)stored;
        }
        break;
    case OMENDB_U8:
        for (i = 0; i < count; i++) {
            const double stored = scalar_quantize(values[i], (double)to->scale, 0, 255);
            out[begin + i] = (unsigned char)stored;
        }
        break;
    case OMENDB_B1:
        memset(out + begin / 8, 0, (count + 7) / 8);
        for (i = 0; i < count; i++) {
            out[(begin + i) / 8] |= (unsigned char)((values[i] > 0.0f) << (i % 8));
        }
        break;
    }
}

/* The sum of squares in double: finite exactly if all values are, since f32 squares cannot
 * overflow. */
static double scalar_squares(const float *values, size_t count)
{
    double sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        sum0 += (double)values[i] * (double)values[i];
        sum1 += (double)values[i + 1] * (double)values[i + 1];
        sum2 += (double)values[i + 2] * (double)values[i + 2];
        sum3 += (double)values[i + 3] * (double)values[i + 3];
    }
    for (; i < count; i++) {
        sum0 += (double)values[i] * (double)values[i];
    }
    return (sum0 + sum1) + (sum2 + sum3);
}

static size_t scalar_first_infinite(const float *values, size_t count)
{
    size_t i = 0;

    while (i < count && isfinite(values[i])) {
        i++;
    }
    return i;
}

static int scalar_refuse(const char *why, size_t where, const char **reason, size_t *position)
{
    *reason = why;
    *position = where;
    return OMENDB_INVALID;
}

static int scalar_check_norm(const struct scalar_format *to, double squares, const char **reason,
                             size_t *position)
{
    const double largest = to->metric == OMENDB_COSINE ? (double)FLT_MAX : (double)FLT_MAX / 4;

    if (squares > largest) {
        return scalar_refuse(scalar_reason_huge, SIZE_MAX, reason, position);
    }
    if (to->metric != OMENDB_COSINE || squares >= (double)FLT_MIN) {
        return OMENDB_OK;
    }
    return scalar_refuse(squares > 0 ? scalar_reason_tiny : scalar_reason_zero, SIZE_MAX, reason,
                         position);
}

static int scalar_copy_bits(const struct scalar_format *to, const void *from, unsigned char *out)
{
    const size_t bytes = scalar_bytes(OMENDB_B1, to->dim);

    memcpy(out, from, bytes);
    if (to->dim % 8 != 0) {
        out[bytes - 1] &= (unsigned char)((1u << (to->dim % 8)) - 1u);
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int scalar_convert(const struct scalar_format *to, const void *from,
                                   omendb_scalar from_type, void *out, const char **reason,
                                   size_t *position)
{
    const bool verbatim = from_type == to->scalar;
    float values[SCALAR_RUN];
    double squares = 0;
    size_t begin, count;

    if ((unsigned int)from_type > OMENDB_B1) {
        return scalar_refuse(scalar_reason_type, SIZE_MAX, reason, position);
    }
    if (from_type == OMENDB_B1) {
        return to->scalar == OMENDB_B1
                   ? scalar_copy_bits(to, from, out)
                   : scalar_refuse(scalar_reason_bits, SIZE_MAX, reason, position);
    }
    if (verbatim) {
        memcpy(out, from, scalar_bytes(to->scalar, to->dim));
    }
    for (begin = 0; begin < to->dim; begin += count) {
        double run;

        count = to->dim - begin < SCALAR_RUN ? to->dim - begin : SCALAR_RUN;
        scalar_widen(from_type, from, begin, count, values);
        run = scalar_squares(values, count);
        if (!isfinite(run)) {
            return scalar_refuse(scalar_reason_infinite,
                                 begin + scalar_first_infinite(values, count), reason, position);
        }
        if (!verbatim) {
            scalar_narrow(to, values, begin, count, out);
            scalar_widen(to->scalar, out, begin, count, values);
            run = scalar_squares(values, count);
        }
        if (!isfinite(run)) {
            return scalar_refuse(to->scalar == OMENDB_F16 ? scalar_reason_f16 : scalar_reason_bf16,
                                 begin + scalar_first_infinite(values, count), reason, position);
        }
        squares += run;
    }
    return to->scalar == OMENDB_B1 ? OMENDB_OK : scalar_check_norm(to, squares, reason, position);
}

static bool scalar_is_integer(omendb_scalar scalar)
{
    return scalar == OMENDB_I8 || scalar == OMENDB_U8;
}

static bool scalar_export_is_lossless(const struct scalar_format *format, omendb_scalar to_type)
{
    switch (to_type) {
    case OMENDB_F32:
        return true;
    case OMENDB_F16:
    case OMENDB_BF16: /* both hold the integers up to 256 exactly */
        return format->scalar == OMENDB_B1 ||
               (scalar_is_integer(format->scalar) && format->scale == 1.0f);
    case OMENDB_I8:
    case OMENDB_U8:
        return format->scalar == OMENDB_B1;
    case OMENDB_B1:
        return false;
    }
    return false;
}

OMENDB_INTERNAL int scalar_export(const struct scalar_format *format, const void *stored,
                                  omendb_scalar to_type, void *out)
{
    struct scalar_format to = {to_type, format->metric, format->dim, 1.0f};
    const bool scaled = scalar_is_integer(format->scalar) && format->scale != 1.0f;
    float values[SCALAR_RUN];
    size_t begin, count, i;

    if (to_type == format->scalar) {
        memcpy(out, stored, scalar_bytes(to_type, format->dim));
        return OMENDB_OK;
    }
    if (!scalar_export_is_lossless(format, to_type)) {
        return OMENDB_INVALID;
    }
    for (begin = 0; begin < format->dim; begin += count) {
        count = format->dim - begin < SCALAR_RUN ? format->dim - begin : SCALAR_RUN;
        scalar_widen(format->scalar, stored, begin, count, values);
        for (i = 0; scaled && i < count; i++) {
            values[i] /= format->scale;
        }
        scalar_narrow(&to, values, begin, count, out);
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL float scalar_distance_factor(const struct scalar_format *format)
{
    const double scale = (double)format->scale;

    if (!scalar_is_integer(format->scalar) || format->metric == OMENDB_COSINE) {
        return 1.0f;
    }
    return (float)(1.0 / (scale * scale));
}
