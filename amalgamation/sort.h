/* sort.h: sorting without memory. */
#ifndef OMENDB_SORT_H
#define OMENDB_SORT_H

#include "internal.h"

#include <stddef.h>
#include <string.h>

#define SORT_MAX_SIZE   64 /* bytes of an item */
#define SORT_MOVES_EACH 64 /* of items that were said to be near their places */

/* Sorts `count` items of `size` bytes ascending; not stable. compare: as for qsort of the C
 * library. At most about n log n comparisons, whatever the order was. */
OMENDB_INTERNAL void sort_array(void *items, size_t count, size_t size,
                                int (*compare)(const void *left, const void *right));

/* The same where the first `done` items are in order and nearly all of the others are near their
 * places: one by one finds those soonest, and when it does not the array is sorted. Inlined, as
 * the size and the comparisons are then known. before: whether left comes strictly before right. */
static inline __attribute__((always_inline)) void
sort_nearly_sorted(void *items, size_t done, size_t count, size_t size,
                   int (*before)(const void *left, const void *right),
                   int (*compare)(const void *left, const void *right))
{
    _Alignas(max_align_t) char item[SORT_MAX_SIZE];
    char *bytes = items;
    size_t moves = 0, most = SORT_MOVES_EACH * count;
    for (size_t i = done; i < count && moves <= most; i++) {
        size_t at = i;
        memcpy(item, bytes + i * size, size);
        for (; at > 0 && before(item, bytes + (at - 1) * size); at--)
            memcpy(bytes + at * size, bytes + (at - 1) * size, size);
        memcpy(bytes + at * size, item, size);
        moves += i - at;
    }
    if (moves > most)
        sort_array(items, count, size, compare);
}

/* Of two uint64_t. */
OMENDB_INTERNAL int sort_compare_numbers(const void *left, const void *right);

#endif
