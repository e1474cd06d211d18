/* prefetch.h: asks for memory that is about to be read.
 *
 * Assembly, because GCC 12 takes a static function that only prefetches for a pure one and drops
 * the calls. */
#ifndef OMENDB_PREFETCH_H
#define OMENDB_PREFETCH_H

#include "internal.h"

#include <stddef.h>

static inline void prefetch_line(const void *address)
{
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __asm__ volatile("prefetcht0 %0" : : "m"(*(const char *)address));
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
    __asm__ volatile("prfm pldl1keep, [%0]" : : "r"(address));
#else
    (void)address;
#endif
}

/* The hardware follows longer runs by itself. */
#define PREFETCH_MAX_BYTES 1024

static inline void prefetch_bytes(const void *address, size_t bytes)
{
    const char *from = (const char *)address;
    bytes = bytes < PREFETCH_MAX_BYTES ? bytes : PREFETCH_MAX_BYTES;
    for (size_t i = 0; i < bytes; i += OMENDB_CACHE_LINE)
        prefetch_line(from + i);
}

#endif
