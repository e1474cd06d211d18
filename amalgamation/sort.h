/* sort.h: sorting without memory. */
#ifndef OMENDB_SORT_H
#define OMENDB_SORT_H

#include "internal.h"

#include <stddef.h>

#define SORT_MAX_SIZE 64 /* bytes of an item */

/* Sorts `count` items of `size` bytes ascending; not stable. compare: as for qsort of the C
 * library. At most about n log n comparisons, whatever the order was. */
OMENDB_INTERNAL void sort_array(void *items, size_t count, size_t size,
                                int (*compare)(const void *left, const void *right));

/* Of two uint64_t. */
OMENDB_INTERNAL int sort_compare_numbers(const void *left, const void *right);

#endif
