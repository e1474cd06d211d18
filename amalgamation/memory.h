/* memory.h: the one place that allocates. Each database has a `struct memory`: the host's hooks, a
 * limit and the count of what is held. Over the limit an allocation fails as if the system had none
 * left. A part of the limit, the reserve, is kept for maintenance, so that what writers filled can
 * always be written down and freed; of an eighth of it calls that read get a little each, so that
 * they do not fail, or wait, because of writers. */
#ifndef OMENDB_MEMORY_H
#define OMENDB_MEMORY_H

#include "internal.h"

#include <stdatomic.h>

struct memory {
    omendb_allocator hooks;
    uint64_t limit;   /* 0: none */
    uint64_t reserve; /* of the limit: for maintenance, and a little for readers */
    _Atomic uint64_t
        used; /* compared-and-exchanged against the limit; publishes nothing: relaxed */
    _Atomic uint64_t spare; /* of used: copies for speed, given back where memory lacks; a count */
    _Atomic uint64_t peak;
};

/* hooks: NULL for malloc. */
OMENDB_INTERNAL void memory_init(struct memory *memory, const omendb_allocator *hooks,
                                 uint64_t limit);

/* Between the two calls, which nest, this thread gets the reserve, too. */
OMENDB_INTERNAL void memory_begin_maintenance(void);
OMENDB_INTERNAL void memory_end_maintenance(void);

/* Between the two calls, which nest, this thread gets up to 256 KiB of the reserve's eighth. */
OMENDB_INTERNAL void memory_begin_reading(void);
OMENDB_INTERNAL void memory_end_reading(void);

/* In use but for what is spare: what only checkpoints, merges and callers can give back. */
OMENDB_INTERNAL uint64_t memory_used_firmly(const struct memory *memory);

/* Of the limit, what calls that write can have at most; SIZE_MAX without one. */
OMENDB_INTERNAL size_t memory_for_writers(const struct memory *memory);
/* Whether `size` bytes in all are to be had now: where many blocks are needed, a reason to take
 * none. Sets the error message if not. */
OMENDB_INTERNAL int memory_has_room(const struct memory *memory, size_t size);

/* NULL over the limit or when the hook fails; size 0 gives a valid pointer. Sets the error message
 * on failure. */
OMENDB_INTERNAL void *memory_alloc(struct memory *memory, size_t size);
OMENDB_INTERNAL void *memory_zalloc(struct memory *memory, size_t size);
OMENDB_INTERNAL void *memory_array(struct memory *memory, size_t count,
                                   size_t element_size); /* checks the product; not zeroed */
OMENDB_INTERNAL void *memory_resize(struct memory *memory, void *block, size_t old_size,
                                    size_t new_size);
OMENDB_INTERNAL void memory_free(struct memory *memory, void *block, size_t size); /* NULL is OK */

/* Zeroed, aligned to a cache line, and to 2 MiB with huge pages advised when size >= 4 MiB.
 * Released only by memory_free_aligned. */
OMENDB_INTERNAL void *memory_alloc_aligned(struct memory *memory, size_t size);
/* What such a block counts for, alignment included: the same for the same size. */
OMENDB_INTERNAL size_t memory_aligned_total(size_t size);
OMENDB_INTERNAL void memory_free_aligned(struct memory *memory, void *block, size_t size);

/* a * b and a + b, or SIZE_MAX when they do not fit: an allocation of that size always fails. */
OMENDB_INTERNAL size_t memory_multiply(size_t a, size_t b);
OMENDB_INTERNAL size_t memory_add(size_t a, size_t b);

#endif
