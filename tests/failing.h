/* failing.h: memory of the system that is refused once: the allocation after so many others. For
 * tests that repeat a call until it gets all that it asks for. */
#ifndef OMENDB_TEST_FAILING_H
#define OMENDB_TEST_FAILING_H

#include <stdatomic.h>
#include <stdlib.h>

#include "omendb.h"

static _Atomic int64_t failing_after = -1; /* allocations; negative: never */

static inline int failing_now(void)
{
    return atomic_load(&failing_after) >= 0 && atomic_fetch_sub(&failing_after, 1) == 0;
}

static inline void *failing_alloc(void *context, size_t size)
{
    (void)context;
    return failing_now() ? NULL : malloc(size);
}

static inline void *failing_resize(void *context, void *block, size_t old_size, size_t new_size)
{
    (void)context;
    (void)old_size;
    return failing_now() ? NULL : realloc(block, new_size);
}

static inline void failing_release(void *context, void *block, size_t size)
{
    (void)context;
    (void)size;
    free(block);
}

static const omendb_allocator failing_allocator = {sizeof failing_allocator, NULL, failing_alloc,
                                                   failing_resize, failing_release};

#endif
