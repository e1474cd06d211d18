/* memory.c: the one place that allocates.
 *
 * Every block is asked for and released with its size, so that the count of what is held is exact
 * without a header in front of each block.
 *
 * Invariants:
 * - `used` is the sum of the sizes that the hooks hold for this database, and never above `limit`:
 *   a size is reserved in the count before the hook is called, and given back if the hook fails.
 * - `peak` is the largest `used` after a successful allocation.
 * - a size above PTRDIFF_MAX fails here, whatever the hooks are; so a product or sum that does not
 *   fit (memory_multiply, memory_add give SIZE_MAX) can be passed on without a check.
 *
 * Without hooks, large blocks are pages of their own: what a merge or a checkpoint frees goes back
 * to the system at once. malloc keeps much of it, since each large block that is freed raises the
 * size up to which it does not ask the system (measured: 400 of 530 MB after a build).
 *
 * Aligned blocks are cut out of larger ones, because the hooks know only malloc's alignment. The
 * address that the hook gave is kept in the word before the block:
 *
 *     | hook's block ...      | hook's address | aligned block of `size` bytes ... | slack |
 *
 * Rejected: aligned_alloc (hosts' hooks have none, and it has no zeroing variant: calloc gets
 * big blocks fresh from the system, where they are zero without being touched), and a header before
 * every block (it breaks up the cache lines of small ones). */
#include "memory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "platform.h"

#define MEMORY_HUGE_PAGE      ((size_t)2 << 20)
#define MEMORY_HUGE_THRESHOLD ((size_t)4 << 20)
/* From here on blocks are pages of their own. AddressSanitizer guards only those of malloc. */
#if defined(__SANITIZE_ADDRESS__)
#define MEMORY_MAPPED SIZE_MAX
#else
#define MEMORY_MAPPED ((size_t)1 << 20)
#endif

/* Of the reserve: the share that readers get together, and what each call gets at most. */
#define MEMORY_READING_SHARE 8
#define MEMORY_READING_BYTES ((size_t)256 << 10)

static _Thread_local uint32_t memory_maintenance; /* how deep in it this thread is */
static _Thread_local uint32_t memory_reading;     /* the same */
static _Thread_local size_t memory_reading_left;  /* of what the call gets of the reserve */

OMENDB_INTERNAL void memory_begin_maintenance(void)
{
    memory_maintenance++;
}

OMENDB_INTERNAL void memory_end_maintenance(void)
{
    memory_maintenance--;
}

OMENDB_INTERNAL void memory_begin_reading(void)
{
    if (memory_reading++ == 0)
        memory_reading_left = MEMORY_READING_BYTES;
}

OMENDB_INTERNAL void memory_end_reading(void)
{
    if (--memory_reading == 0)
        memory_reading_left = 0;
}

OMENDB_INTERNAL uint64_t memory_used_firmly(const struct memory *memory)
{
    const uint64_t spare = atomic_load(&memory->spare), used = atomic_load(&memory->used);
    return used > spare ? used - spare : 0;
}

static void *memory_system_zalloc(size_t size)
{
    return size >= MEMORY_MAPPED ? platform_map_pages(size) : calloc(1, size);
}

static void *memory_system_alloc(void *context, size_t size)
{
    (void)context;
    return size >= MEMORY_MAPPED ? platform_map_pages(size) : malloc(size);
}

static void memory_system_release(void *context, void *block, size_t size)
{
    (void)context;
    if (size >= MEMORY_MAPPED)
        platform_unmap_pages(block, size);
    else
        free(block);
}

static void *memory_system_resize(void *context, void *block, size_t old_size, size_t new_size)
{
    if (old_size < MEMORY_MAPPED && new_size < MEMORY_MAPPED)
        return realloc(block, new_size);
    void *moved = memory_system_alloc(context, new_size);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, old_size < new_size ? old_size : new_size);
    memory_system_release(context, block, old_size);
    return moved;
}

OMENDB_INTERNAL void memory_init(struct memory *memory, const omendb_allocator *hooks,
                                 uint64_t limit)
{
    const omendb_allocator system = {sizeof(omendb_allocator), NULL, memory_system_alloc,
                                     memory_system_resize, memory_system_release};
    memory->hooks = hooks != NULL ? *hooks : system;
    memory->limit = limit;
    memory->reserve = 0;
    atomic_init(&memory->used, 0);
    atomic_init(&memory->spare, 0);
    atomic_init(&memory->peak, 0);
}

OMENDB_INTERNAL size_t memory_multiply(size_t a, size_t b)
{
    return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

OMENDB_INTERNAL size_t memory_add(size_t a, size_t b)
{
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}

/* Of the limit, what a block of this size leaves alone. */
static uint64_t memory_kept(const struct memory *memory, size_t size)
{
    if (memory_maintenance != 0)
        return 0;
    return size <= memory_reading_left ? memory->reserve - memory->reserve / MEMORY_READING_SHARE
                                       : memory->reserve;
}

OMENDB_INTERNAL size_t memory_for_writers(const struct memory *memory)
{
    const uint64_t most = memory->limit - memory->reserve;
    return memory->limit == 0 || most > SIZE_MAX ? SIZE_MAX : (size_t)most;
}

/* Whether the limit allows `size` beside `used`. */
static int memory_allows(const struct memory *memory, uint64_t used, size_t size)
{
    const uint64_t kept = memory_kept(memory, size);
    const uint64_t limit = memory->limit - kept;
    if (memory->limit == 0 || (used <= limit && size <= limit - used))
        return 1;
    error_set(OMENDB_NOMEM,
              "memory_limit of %" PRIu64 " bytes reached: in use %" PRIu64
              ", kept for checkpoints %" PRIu64 ", wanted %zu more",
              memory->limit, used, kept, size);
    return 0;
}

OMENDB_INTERNAL int memory_has_room(const struct memory *memory, size_t size)
{
    return memory_allows(memory, atomic_load_explicit(&memory->used, memory_order_relaxed), size);
}

/* The counts are statistics and a bound, they publish nothing: relaxed is enough. Returns 0 over
 * the limit. */
static int memory_reserve(struct memory *memory, size_t size)
{
    uint64_t used = atomic_load_explicit(&memory->used, memory_order_relaxed);
    if (size > (size_t)PTRDIFF_MAX) {
        error_set(OMENDB_NOMEM, "no memory for %zu bytes", size);
        return 0;
    }
    do {
        if (!memory_allows(memory, used, size))
            return 0;
    } while (!atomic_compare_exchange_weak_explicit(&memory->used, &used, used + size,
                                                    memory_order_relaxed, memory_order_relaxed));
    if (size <= memory_reading_left && used + size > memory->limit - memory->reserve)
        memory_reading_left -= size;
    return 1;
}

static void memory_give_back(struct memory *memory, size_t size)
{
    atomic_fetch_sub_explicit(&memory->used, size, memory_order_relaxed);
}

static void memory_note_peak(struct memory *memory)
{
    const uint64_t used = atomic_load_explicit(&memory->used, memory_order_relaxed);
    uint64_t peak = atomic_load_explicit(&memory->peak, memory_order_relaxed);
    while (used > peak &&
           !atomic_compare_exchange_weak_explicit(&memory->peak, &peak, used, memory_order_relaxed,
                                                  memory_order_relaxed)) {
    }
}

static void *memory_from_hooks(struct memory *memory, size_t size, int zeroed)
{
    void *block;
    if (!zeroed)
        return memory->hooks.alloc(memory->hooks.context, size);
    if (memory->hooks.alloc == memory_system_alloc)
        return memory_system_zalloc(size);
    block = memory->hooks.alloc(memory->hooks.context, size);
    if (block != NULL)
        memset(block, 0, size);
    return block;
}

static void *memory_get(struct memory *memory, size_t size, int zeroed)
{
    void *block;
    /* Hooks are never asked for 0 bytes: malloc may answer NULL, which is no failure. */
    if (size == 0)
        size = 1;
    if (!memory_reserve(memory, size))
        return NULL;
    block = memory_from_hooks(memory, size, zeroed);
    if (block == NULL) {
        memory_give_back(memory, size);
        error_set(OMENDB_NOMEM, "no memory for %zu bytes", size);
        return NULL;
    }
    memory_note_peak(memory);
    return block;
}

OMENDB_INTERNAL void *memory_alloc(struct memory *memory, size_t size)
{
    return memory_get(memory, size, 0);
}

OMENDB_INTERNAL void *memory_zalloc(struct memory *memory, size_t size)
{
    return memory_get(memory, size, 1);
}

OMENDB_INTERNAL void *memory_array(struct memory *memory, size_t count, size_t element_size)
{
    return memory_get(memory, memory_multiply(count, element_size), 0);
}

/* On failure the block stays as it is, with its old size. */
OMENDB_INTERNAL void *memory_resize(struct memory *memory, void *block, size_t old_size,
                                    size_t new_size)
{
    void *moved;
    if (block == NULL)
        return memory_get(memory, new_size, 0);
    old_size = old_size == 0 ? 1 : old_size;
    new_size = new_size == 0 ? 1 : new_size;
    if (new_size > old_size && !memory_reserve(memory, new_size - old_size))
        return NULL;
    moved = new_size > (size_t)PTRDIFF_MAX
                ? NULL
                : memory->hooks.resize(memory->hooks.context, block, old_size, new_size);
    if (moved == NULL) {
        if (new_size > old_size)
            memory_give_back(memory, new_size - old_size);
        error_set(OMENDB_NOMEM, "no memory for %zu bytes", new_size);
        return NULL;
    }
    if (new_size < old_size)
        memory_give_back(memory, old_size - new_size);
    memory_note_peak(memory);
    return moved;
}

OMENDB_INTERNAL void memory_free(struct memory *memory, void *block, size_t size)
{
    if (block == NULL)
        return;
    size = size == 0 ? 1 : size;
    memory->hooks.release(memory->hooks.context, block, size);
    memory_give_back(memory, size);
}

static size_t memory_alignment(size_t size)
{
    return size >= MEMORY_HUGE_THRESHOLD ? MEMORY_HUGE_PAGE : OMENDB_CACHE_LINE;
}

OMENDB_INTERNAL size_t memory_aligned_total(size_t size)
{
    return memory_add(size, memory_alignment(size) + sizeof(void *));
}

OMENDB_INTERNAL void *memory_alloc_aligned(struct memory *memory, size_t size)
{
    const size_t alignment = memory_alignment(size);
    char *raw = memory_get(memory, memory_aligned_total(size), 1);
    char *block;
    if (raw == NULL)
        return NULL;
    block = raw + sizeof(void *);
    block += (alignment - ((uintptr_t)block & (alignment - 1))) & (alignment - 1);
    memcpy(block - sizeof(void *), &raw, sizeof raw);
    if (alignment == MEMORY_HUGE_PAGE)
        platform_advise_huge(block, size);
    return block;
}

OMENDB_INTERNAL void memory_free_aligned(struct memory *memory, void *block, size_t size)
{
    void *raw;
    if (block == NULL)
        return;
    memcpy(&raw, (char *)block - sizeof(void *), sizeof raw);
    memory_free(memory, raw, memory_aligned_total(size));
}

#undef MEMORY_HUGE_PAGE
#undef MEMORY_HUGE_THRESHOLD
#undef MEMORY_MAPPED
#undef MEMORY_READING_SHARE
#undef MEMORY_READING_BYTES
