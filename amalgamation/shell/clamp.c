/* clamp.c: the library saturates what i8 and u8 cannot hold, silently as its header says; a person
 * who imports a file wants to know.
 *
 * Invariant: counted is what the library changes, by its rule: value * scale, rounded to the
 * nearest whole number, against the range of the type. Values given in the stored type are stored
 * as they are. */
#include "clamp.h"

#include <math.h>
#include <string.h>

/* IEEE 754 binary16: sign, 5 bits of exponent, 10 of fraction. */
static float clamp_half(uint16_t half)
{
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const float magnitude = exponent == 0 ? ldexpf((float)fraction, -24)
                                          : ldexpf((float)(fraction + 1024), exponent - 25);

    return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

static float clamp_element(int vector_type, const void *values, size_t i)
{
    uint16_t half;
    float value;

    switch (vector_type) {
    case OMENDB_F32:
        memcpy(&value, (const char *)values + i * sizeof value, sizeof value);
        return value;
    case OMENDB_F16:
        memcpy(&half, (const char *)values + i * sizeof half, sizeof half);
        return clamp_half(half);
    case OMENDB_I8:
        return ((const signed char *)values)[i];
    default:
        return ((const unsigned char *)values)[i];
    }
}

uint64_t clamp_count(const omendb_schema *schema, int vector_type, const void *values, size_t count)
{
    const bool is_signed = schema->scalar == OMENDB_I8;
    const double least = is_signed ? -128 : 0, most = is_signed ? 127 : 255;
    uint64_t clamped = 0;
    size_t i;

    if ((!is_signed && schema->scalar != OMENDB_U8) || (int)schema->scalar == vector_type) {
        return 0;
    }
    for (i = 0; i < count; i++) {
        const double stored =
            nearbyint((double)clamp_element(vector_type, values, i) * (double)schema->scale);

        clamped += stored < least || stored > most;
    }
    return clamped;
}

void clamp_warn(const struct session *session, uint64_t clamped, uint64_t total)
{
    const omendb_schema *schema = &session->schema;
    char some[OUTPUT_TEXT_BYTES], all[OUTPUT_TEXT_BYTES], scale[OUTPUT_FLOAT_BYTES];

    if (clamped == 0 || session->arguments.json) {
        return;
    }
    fprintf(stderr,
            "omendb: warning: %s of %s values are outside of %s (%s, scale %s) and were clamped\n",
            output_format_count(clamped, some), output_format_count(total, all),
            schema->scalar == OMENDB_I8 ? "-128..127" : "0..255",
            omendb_scalar_name((int)schema->scalar), output_format_float(schema->scale, scale));
}
