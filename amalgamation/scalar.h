/* scalar.h: the element types of vectors, and conversion between the user's and the stored one. */
#ifndef OMENDB_SCALAR_H
#define OMENDB_SCALAR_H

#include <stdbool.h>

#include "internal.h"

/* How a collection stores its vectors. */
struct scalar_format {
    omendb_scalar scalar;
    omendb_metric metric;
    size_t dim;  /* elements; bits for OMENDB_B1 */
    float scale; /* i8 and u8: stored = round(value * scale), saturated; finite and above 0 */
};

/* Bytes of one vector; for OMENDB_B1 (dim + 7) / 8. */
OMENDB_INTERNAL size_t scalar_bytes(omendb_scalar scalar, size_t dim);

/* Converts one vector of `from_type` at `from` into the stored format at `out`.
 *
 * from:     dim elements of any alignment; must not overlap `out`.
 * out:      scalar_bytes(to->scalar, to->dim) bytes; of undefined content on failure.
 * reason:   on failure a static fragment that completes "the vector ..." or "element N ...".
 * position: on failure the element, or SIZE_MAX when the reason concerns the whole vector.
 * Returns:  OMENDB_OK or OMENDB_INVALID. */
OMENDB_INTERNAL int scalar_convert(const struct scalar_format *to, const void *from,
                                   omendb_scalar from_type, void *out, const char **reason,
                                   size_t *position);

/* Converts a stored vector into `to_type` at `out`.
 *
 * The same type is a copy (i8 and u8 in stored units). OMENDB_F32 always works: integers are
 * divided by the scale, bits become 0 and 1. Another type works where no value can be lost: i8 and
 * u8 of scale 1 into f16 and bf16, bits into every type. Returns:  OMENDB_OK or OMENDB_INVALID, and
 * then `out` is untouched. */
OMENDB_INTERNAL int scalar_export(const struct scalar_format *format, const void *stored,
                                  omendb_scalar to_type, void *out);

/* Elements [begin, begin + count) of a stored vector as f32, integers in stored units; count is at
 * most SCALAR_RUN. */
#define SCALAR_RUN 64
OMENDB_INTERNAL void scalar_widen(omendb_scalar type, const void *vector, size_t begin,
                                  size_t count, float *out);

/* What a kernel's distance over stored vectors is multiplied by to be in the user's units:
 * 1 / scale^2 for squared L2 and inner product of i8 and u8, else 1. */
OMENDB_INTERNAL float scalar_distance_factor(const struct scalar_format *format);

/* IEEE 754 binary16 and bfloat16. To the narrow type: to nearest, ties to even; too large values
 * become infinity; NaN stays NaN. */
OMENDB_INTERNAL float scalar_f16_to_f32(uint16_t half);
OMENDB_INTERNAL uint16_t scalar_f32_to_f16(float value);
OMENDB_INTERNAL float scalar_bf16_to_f32(uint16_t half);
OMENDB_INTERNAL uint16_t scalar_f32_to_bf16(float value);

#endif
