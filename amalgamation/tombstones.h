/* tombstones.h: for each row of a memtable or segment the commit that ended it (deleted or replaced
 * it), or 0.
 *
 * Sealing a memtable keeps the numbers of its rows, so the segment takes over the very same object
 * and no delete is lost on the way. Pages of 512 rows come into being at the first delete among
 * them; a walker pays one load for rows of pages without any.
 *
 * Guarded: prepare, set and grow by the commit mutex; get by nothing (acquire loads).
 *
 * Atomics: `directory` and its pages are stored release, zeroed or copied before; a reader of an
 * older directory misses only pages of ends that are above the commit that it reads at, since those
 * at or below it were there before visible_commit was raised to it. For the same reason `end`,
 * `dead` and `newest` need no order among themselves; release and acquire are for a merge, which
 * takes ends over while they come. */
#ifndef OMENDB_TOMBSTONES_H
#define OMENDB_TOMBSTONES_H

#include "internal.h"
#include "memory.h"

#include <stdatomic.h>

#define TOMBSTONE_PAGE_SHIFT 9
#define TOMBSTONE_PAGE_ROWS  (UINT32_C(1) << TOMBSTONE_PAGE_SHIFT)

struct tombstone_page {
    _Atomic uint64_t end[TOMBSTONE_PAGE_ROWS];
};

struct tombstone_directory {
    uint32_t pages;
    struct tombstone_directory *older; /* kept until the end: a reader may hold it */
    _Atomic(struct tombstone_page *) page[];
};

struct tombstones {
    _Atomic uint32_t references;
    struct memory *memory;
    _Atomic(struct tombstone_directory *) directory;
    _Atomic uint32_t dead;   /* rows that have ended */
    _Atomic uint64_t newest; /* largest end */
};

OMENDB_INTERNAL struct tombstones *tombstones_create(struct memory *memory);
OMENDB_INTERNAL struct tombstones *tombstones_reference(struct tombstones *tombstones);
OMENDB_INTERNAL void tombstones_release(struct tombstones *tombstones); /* NULL is OK */

/* After it tombstones_set of this row cannot fail. */
OMENDB_INTERNAL int tombstones_prepare(struct tombstones *tombstones, uint32_t row);
OMENDB_INTERNAL void tombstones_set(struct tombstones *tombstones, uint32_t row, uint64_t commit);

/* Calls `each` for every ended row below `rows`, ascending; stops at its first non-zero answer and
 * returns it. */
OMENDB_INTERNAL int tombstones_each(const struct tombstones *tombstones, uint32_t rows,
                                    int (*each)(void *context, uint32_t row, uint64_t end),
                                    void *context);

/* The commit that ended the row, 0: none. */
static inline uint64_t tombstones_get(const struct tombstones *tombstones, uint32_t row)
{
    struct tombstone_directory *directory =
        atomic_load_explicit(&tombstones->directory, memory_order_acquire);
    uint32_t number = row >> TOMBSTONE_PAGE_SHIFT;
    if (directory == NULL || number >= directory->pages)
        return 0;
    struct tombstone_page *page =
        atomic_load_explicit(&directory->page[number], memory_order_acquire);
    if (page == NULL)
        return 0;
    return atomic_load_explicit(&page->end[row & (TOMBSTONE_PAGE_ROWS - 1)], memory_order_acquire);
}

#endif
