/* decimal.h: numbers between decimal digits and double, correctly rounded, to nearest and ties to
 * even, whatever the locale and the rounding mode of the host are. */
#ifndef OMENDB_DECIMAL_H
#define OMENDB_DECIMAL_H

#include "internal.h"

#define DECIMAL_BYTES 32 /* of what decimal_write writes, with its NUL */
/* More than any double needs, less than what overflows when a text's digits are counted to it. */
#define DECIMAL_EXPONENT_MAX (INT64_C(1) << 50)

/* whole.fraction * 10^exponent; ASCII digits, of which each part may have none. */
struct decimal {
    const uint8_t *whole;
    size_t whole_size;
    const uint8_t *fraction;
    size_t fraction_size;
    int64_t exponent; /* within +-DECIMAL_EXPONENT_MAX */
};

/* The nearest double, infinity included. */
OMENDB_INTERNAL double decimal_value(const struct decimal *decimal);

/* Few digits that decimal_value turns into the same finite double, with a point or an exponent
 * ("1.0", "-2.5e-7"), and a NUL. Returns their count. */
OMENDB_INTERNAL size_t decimal_write(double value, char out[DECIMAL_BYTES]);

#endif
