/* internal.h: the linkage and the few helpers that every module shares.
 *
 * Invariant: under the amalgamation every function that is not public is `static`, so that a
 * program that links omendb.c sees only omendb_* symbols. Modules that are compiled alone (none is,
 * in the product) would need external linkage instead; the macro keeps that possible without
 * editing a declaration. */
#ifndef OMENDB_INTERNAL_H
#define OMENDB_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "omendb.h"

#if defined(__GNUC__) || defined(__clang__)
#define OMENDB_INTERNAL    static __attribute__((unused))
#define OMENDB_LIKELY(x)   __builtin_expect(!!(x), 1)
#define OMENDB_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#define OMENDB_INTERNAL    static
#define OMENDB_LIKELY(x)   (x)
#define OMENDB_UNLIKELY(x) (x)
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "OmenDB files are little-endian; big-endian hosts are not supported"
#endif

/* Vectors, links and codes start on a cache line. */
#define OMENDB_CACHE_LINE 64

#endif
