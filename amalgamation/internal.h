/* internal.h: the linkage and the few helpers that every module shares.
 *
 * Invariant: under the amalgamation every function that is not public is `static`, so that a
 * program that links omendb.c sees only omendb_* symbols. */
#ifndef OMENDB_INTERNAL_H
#define OMENDB_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "omendb.h"

/* Tests and fuzzers compile omendb.c once with internal functions that they can link. */
#if !defined(OMENDB_INTERNAL)
#if defined(__GNUC__) || defined(__clang__)
#define OMENDB_INTERNAL static __attribute__((unused))
#else
#define OMENDB_INTERNAL static
#endif
#endif

#if defined(__GNUC__) || defined(__clang__)
#define OMENDB_LIKELY(x)   __builtin_expect(!!(x), 1)
#define OMENDB_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#define OMENDB_LIKELY(x)   (x)
#define OMENDB_UNLIKELY(x) (x)
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "OmenDB files are little-endian; big-endian hosts are not supported"
#endif

/* Where threads meet without a lock. Nothing, unless a test that includes omendb.c defines it
 * before: then a scheduler chooses there which thread goes on (tests/schedule.h). place: a name in
 * quotes. */
#ifndef OMENDB_YIELD
#define OMENDB_YIELD(place) ((void)0)
#endif

/* Vectors, links and codes start on a cache line. */
#define OMENDB_CACHE_LINE 64

#endif
