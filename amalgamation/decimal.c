/* decimal.c: see decimal.h.
 *
 * READING. All digits become one big integer D, and D * 10^e = D * 5^e * 2^e is exact for e >= 0.
 * For e < 0 D is shifted left by whole limbs until its quotient by 5^-e has 54 bits or more, and
 * divided by 5^13 (a limb) again and again: floors of quotients by factors compose to the floor of
 * the quotient by their product, and something was lost iff one of the divisions had a remainder.
 * The upper 64 bits and that "iff" decide the rounding. Of more than 800 digits the rest counts as
 * one digit 1 behind them: what lies exactly between two doubles has at most 768 digits, so nothing
 * is moved over such a place.
 *
 * WRITING. The C library gives 15 digits, 16 and so on, of which only the digits and the exponent
 * are taken (the point is the locale's); the first of them that reads as the same double is it.
 * That is the shortest, but for some powers of two where it has one digit more. 17 digits are
 * enough, 19 where the host has changed the rounding mode.
 *
 * Rejected: strtod (its point is the locale's, which another thread may change); Eisel-Lemire and
 * Ryu (10 KiB of tables each, to be faster at what is a small part of metadata); a first try in
 * floating point (it would depend on the rounding mode, and saves little). */
#include "decimal.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DECIMAL_DIGITS 800 /* that are kept exactly */
/* 801 digits take 2,661 bits; what gives a quotient of 54 bits by 5^1126, 2,615 bits, takes as
 * many, and a limb more. */
#define DECIMAL_LIMBS         96
#define DECIMAL_LIMB_DIGITS   9    /* 10^9 is a limb */
#define DECIMAL_LIMB_FIVES    13   /* 5^13 is a limb */
#define DECIMAL_QUOTIENT_BITS 54   /* those of a double, and one that tells halves */
#define DECIMAL_OVERFLOWS     310  /* no double has as many digits before the point */
#define DECIMAL_VANISHES      -325 /* and what begins so far behind it rounds to 0 */

/* Base 2^32, the lowest limb first; the highest of `count` is not 0. */
struct decimal_big {
    size_t count;
    uint32_t limbs[DECIMAL_LIMBS];
};

static void decimal_multiply_add(struct decimal_big *big, uint32_t factor, uint32_t term)
{
    uint64_t carry = term;
    for (size_t i = 0; i < big->count; i++) {
        carry += (uint64_t)big->limbs[i] * factor;
        big->limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
    if (carry != 0) {
        assert(big->count < DECIMAL_LIMBS);
        big->limbs[big->count++] = (uint32_t)carry;
    }
}

/* Returns whether there was a remainder. */
static int decimal_divide(struct decimal_big *big, uint32_t divisor)
{
    uint64_t rest = 0;
    for (size_t i = big->count; i-- > 0;) {
        rest = rest << 32 | big->limbs[i];
        big->limbs[i] = (uint32_t)(rest / divisor);
        rest %= divisor;
    }
    while (big->count > 0 && big->limbs[big->count - 1] == 0)
        big->count--;
    return rest != 0;
}

static uint32_t decimal_power(uint32_t base, uint32_t exponent)
{
    uint32_t power = 1;
    while (exponent-- > 0)
        power *= base;
    return power;
}

static void decimal_multiply_fives(struct decimal_big *big, uint32_t fives)
{
    for (uint32_t step; fives > 0; fives -= step) {
        step = fives < DECIMAL_LIMB_FIVES ? fives : DECIMAL_LIMB_FIVES;
        decimal_multiply_add(big, decimal_power(5, step), 0);
    }
}

static int decimal_divide_fives(struct decimal_big *big, uint32_t fives)
{
    int inexact = 0;
    for (uint32_t step; fives > 0; fives -= step) {
        step = fives < DECIMAL_LIMB_FIVES ? fives : DECIMAL_LIMB_FIVES;
        inexact |= decimal_divide(big, decimal_power(5, step));
    }
    return inexact;
}

/* Shifts left, so that the quotient by 5^fives has the bits that rounding needs. Returns the limbs.
 */
static size_t decimal_make_room(struct decimal_big *big, uint32_t fives)
{
    const size_t have = (big->count - 1) * 32; /* bits, at least */
    const size_t needed = DECIMAL_QUOTIENT_BITS + fives * 2322 / 1000 + 1;
    const size_t limbs = needed > have ? (needed - have + 31) / 32 : 0;
    assert(limbs + big->count <= DECIMAL_LIMBS);
    memmove(big->limbs + limbs, big->limbs, big->count * sizeof big->limbs[0]);
    memset(big->limbs, 0, limbs * sizeof big->limbs[0]);
    big->count += limbs;
    return limbs;
}

/* ------------------------------------------------------------------------------------------------
 * from digits */

/* What was collected of the digits of both parts. */
struct decimal_digits {
    size_t count; /* from the first that is not 0, those in `big` and `chunk` */
    size_t left_out;
    int left_out_some;          /* that were not 0 */
    uint32_t chunk, chunk_size; /* digits that are not in `big` yet */
    struct decimal_big big;     /* the last: limbs are written before they are read */
};

static void decimal_flush(struct decimal_digits *digits)
{
    decimal_multiply_add(&digits->big, decimal_power(10, digits->chunk_size), digits->chunk);
    digits->chunk = 0;
    digits->chunk_size = 0;
}

static void decimal_push(struct decimal_digits *digits, uint32_t digit)
{
    digits->chunk = digits->chunk * 10 + digit;
    digits->count++;
    if (++digits->chunk_size == DECIMAL_LIMB_DIGITS)
        decimal_flush(digits);
}

static void decimal_collect(struct decimal_digits *digits, const uint8_t *text, size_t size)
{
    size_t at = 0;
    while (digits->count == 0 && at < size && text[at] == '0')
        at++;
    for (; at < size && digits->count < DECIMAL_DIGITS; at++)
        decimal_push(digits, (uint32_t)(text[at] - '0'));
    for (; at < size; at++) {
        digits->left_out++;
        digits->left_out_some |= text[at] != '0';
    }
}

/* top * 2^exponent, top's highest bit set; more: the true value is a little above that. */
static double decimal_round(uint64_t top, int exponent, int more)
{
    const int highest = exponent + 63;
    const int drop = highest < -1022 ? 11 + (-1022 - highest) : 11;
    uint64_t bits;
    double value;
    if (highest > 1023)
        return (double)INFINITY;
    if (drop > 64)
        return 0.0;
    const uint64_t kept = drop == 64 ? 0 : top >> drop;
    const uint64_t half = UINT64_C(1) << (drop - 1);
    const int above = (top & (half - 1)) != 0 || more;
    const int up = (top & half) != 0 && (above || (kept & 1) != 0);
    /* The mantissa's highest bit, and a carry out of it, raise the exponent by one. */
    bits = (highest < -1022 ? 0 : (uint64_t)(highest + 1022) << 52) + kept + (uint64_t)up;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* big * 2^exponent */
static double decimal_round_big(const struct decimal_big *big, int64_t exponent, int more)
{
    const size_t count = big->count;
    uint64_t top = (uint64_t)big->limbs[count - 1] << 32 | (count > 1 ? big->limbs[count - 2] : 0);
    const uint64_t next = count > 2 ? (uint64_t)big->limbs[count - 3] << 32 : 0;
    int shift = 0;
    while ((top << shift) >> 63 == 0)
        shift++;
    if (shift > 0)
        top = top << shift | next >> (64 - shift);
    more |= (next << shift) != 0;
    for (size_t i = 0; i + 3 < count; i++)
        more |= big->limbs[i] != 0;
    return decimal_round(top, (int)(exponent + 32 * ((int64_t)count - 2) - shift), more);
}

/* big * 10^exponent, neither far too large nor far too small for a double */
static double decimal_scale(struct decimal_big *big, int64_t exponent)
{
    if (exponent >= 0) {
        decimal_multiply_fives(big, (uint32_t)exponent);
        return decimal_round_big(big, exponent, 0);
    }
    const size_t limbs = decimal_make_room(big, (uint32_t)-exponent);
    const int inexact = decimal_divide_fives(big, (uint32_t)-exponent);
    return decimal_round_big(big, exponent - 32 * (int64_t)limbs, inexact);
}

OMENDB_INTERNAL double decimal_value(const struct decimal *decimal)
{
    struct decimal_digits digits;
    int64_t exponent = decimal->exponent;
    memset(&digits, 0, offsetof(struct decimal_digits, big.limbs));
    decimal_collect(&digits, decimal->whole, decimal->whole_size);
    decimal_collect(&digits, decimal->fraction, decimal->fraction_size);
    if (digits.count == 0)
        return 0.0;
    exponent += (int64_t)digits.left_out - (int64_t)decimal->fraction_size;
    if (digits.left_out_some) {
        decimal_push(&digits, 1);
        exponent--;
    }
    if (digits.chunk_size > 0)
        decimal_flush(&digits);
    if (exponent + (int64_t)digits.count > DECIMAL_OVERFLOWS)
        return (double)INFINITY;
    if (exponent + (int64_t)digits.count < DECIMAL_VANISHES)
        return 0.0;
    return decimal_scale(&digits.big, exponent);
}

/* ------------------------------------------------------------------------------------------------
 * to digits */

#define DECIMAL_MOST 19 /* digits, of which each double has its own however they are rounded */

/* The digits of value >= 0 to so many places, without zeros at the end, but one at least; of the
 * first one the power of ten. */
static size_t decimal_print(double value, int places, uint8_t digits[DECIMAL_MOST], int *power)
{
    char text[64];
    size_t count = 0, at = 0;
    snprintf(text, sizeof text, "%.*e", places - 1, value);
    for (; text[at] != 'e'; at++)
        if (text[at] >= '0' && text[at] <= '9')
            digits[count++] = (uint8_t)text[at];
    *power = (int)strtol(text + at + 1, NULL, 10);
    while (count > 1 && digits[count - 1] == '0')
        count--;
    return count;
}

/* The fewest that read as the same; of numbers with few bits 15 may be too many. */
static size_t decimal_shortest(double value, uint8_t digits[DECIMAL_MOST], int *power)
{
    size_t count = 0;
    int places = value < 0x1p-1022 ? 1 : 15;
    for (; places <= DECIMAL_MOST; places++) {
        count = decimal_print(value, places, digits, power);
        const struct decimal decimal = {digits, count, NULL, 0, *power - (int64_t)count + 1};
        const double again = decimal_value(&decimal);
        if (memcmp(&again, &value, sizeof value) == 0)
            break;
    }
    return count;
}

static size_t decimal_zeros(char *out, int count)
{
    for (int i = 0; i < count; i++)
        out[i] = '0';
    return count < 0 ? 0 : (size_t)count;
}

/* digits[0].digits[1]... * 10^power, 0 <= power */
static size_t decimal_write_large(const uint8_t *digits, size_t count, int power, char *out)
{
    const size_t whole = count < (size_t)power + 1 ? count : (size_t)power + 1;
    size_t at = whole;
    memcpy(out, digits, whole);
    at += decimal_zeros(out + at, power + 1 - (int)count);
    out[at++] = '.';
    if (count == whole)
        out[at++] = '0';
    memcpy(out + at, digits + whole, count - whole);
    return at + count - whole;
}

static size_t decimal_write_small(const uint8_t *digits, size_t count, int power, char *out)
{
    size_t at = 2;
    memcpy(out, "0.", 2);
    at += decimal_zeros(out + at, -power - 1);
    memcpy(out + at, digits, count);
    return at + count;
}

static size_t decimal_write_power(const uint8_t *digits, size_t count, int power, char *out)
{
    size_t at = 1;
    out[0] = (char)digits[0];
    if (count > 1)
        out[at++] = '.';
    memcpy(out + at, digits + 1, count - 1);
    at += count - 1;
    return at + (size_t)snprintf(out + at, 6, "e%d", power);
}

OMENDB_INTERNAL size_t decimal_write(double value, char out[DECIMAL_BYTES])
{
    uint8_t digits[DECIMAL_MOST];
    int power;
    size_t at = 0;
    assert(isfinite(value));
    if (signbit(value))
        out[at++] = '-';
    const size_t count = decimal_shortest(fabs(value), digits, &power);
    if (power >= 0 && power < 16)
        at += decimal_write_large(digits, count, power, out + at);
    else if (power < 0 && power > -6)
        at += decimal_write_small(digits, count, power, out + at);
    else
        at += decimal_write_power(digits, count, power, out + at);
    out[at] = '\0';
    return at;
}

#undef DECIMAL_DIGITS
#undef DECIMAL_LIMBS
#undef DECIMAL_LIMB_DIGITS
#undef DECIMAL_LIMB_FIVES
#undef DECIMAL_QUOTIENT_BITS
#undef DECIMAL_OVERFLOWS
#undef DECIMAL_VANISHES
#undef DECIMAL_MOST
