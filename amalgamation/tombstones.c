/* tombstones.c: see tombstones.h.
 *
 * Rejected: a bitmap beside a hash of commits. It is smaller when few rows of a page are dead, but
 * asks two questions for each dead row in the walk, and growing a hash under readers needs the same
 * care as the directory here. */
#include "tombstones.h"

static size_t tombstones_directory_bytes(uint32_t pages)
{
    return sizeof(struct tombstone_directory) + pages * sizeof(_Atomic(struct tombstone_page *));
}

OMENDB_INTERNAL struct tombstones *tombstones_create(struct memory *memory)
{
    struct tombstones *tombstones = memory_zalloc(memory, sizeof *tombstones);
    if (tombstones == NULL)
        return NULL;
    tombstones->memory = memory;
    atomic_init(&tombstones->references, 1);
    return tombstones;
}

OMENDB_INTERNAL struct tombstones *tombstones_reference(struct tombstones *tombstones)
{
    atomic_fetch_add_explicit(&tombstones->references, 1, memory_order_relaxed);
    return tombstones;
}

OMENDB_INTERNAL void tombstones_release(struct tombstones *tombstones)
{
    if (tombstones == NULL ||
        atomic_fetch_sub_explicit(&tombstones->references, 1, memory_order_acq_rel) != 1)
        return;
    struct memory *memory = tombstones->memory;
    struct tombstone_directory *directory =
        atomic_load_explicit(&tombstones->directory, memory_order_relaxed);
    for (uint32_t i = 0; directory != NULL && i < directory->pages; i++)
        memory_free(memory, atomic_load_explicit(&directory->page[i], memory_order_relaxed),
                    sizeof(struct tombstone_page));
    while (directory != NULL) {
        struct tombstone_directory *older = directory->older;
        memory_free(memory, directory, tombstones_directory_bytes(directory->pages));
        directory = older;
    }
    memory_free(memory, tombstones, sizeof *tombstones);
}

static struct tombstone_directory *tombstones_grow(struct tombstones *tombstones,
                                                   uint32_t pages_needed)
{
    struct tombstone_directory *old =
        atomic_load_explicit(&tombstones->directory, memory_order_relaxed);
    uint32_t pages = old == NULL ? 4 : old->pages;
    while (pages < pages_needed)
        pages *= 2;
    struct tombstone_directory *directory =
        memory_zalloc(tombstones->memory, tombstones_directory_bytes(pages));
    if (directory == NULL)
        return NULL;
    directory->pages = pages;
    directory->older = old;
    for (uint32_t i = 0; old != NULL && i < old->pages; i++)
        atomic_init(&directory->page[i], atomic_load_explicit(&old->page[i], memory_order_relaxed));
    atomic_store_explicit(&tombstones->directory, directory, memory_order_release);
    return directory;
}

OMENDB_INTERNAL int tombstones_prepare(struct tombstones *tombstones, uint32_t row)
{
    uint32_t number = row >> TOMBSTONE_PAGE_SHIFT;
    struct tombstone_directory *directory =
        atomic_load_explicit(&tombstones->directory, memory_order_relaxed);
    if (directory == NULL || number >= directory->pages) {
        directory = tombstones_grow(tombstones, number + 1);
        if (directory == NULL)
            return OMENDB_NOMEM;
    }
    if (atomic_load_explicit(&directory->page[number], memory_order_relaxed) != NULL)
        return OMENDB_OK;
    struct tombstone_page *page = memory_zalloc(tombstones->memory, sizeof *page);
    if (page == NULL)
        return OMENDB_NOMEM;
    atomic_store_explicit(&directory->page[number], page, memory_order_release);
    return OMENDB_OK;
}

OMENDB_INTERNAL void tombstones_set(struct tombstones *tombstones, uint32_t row, uint64_t commit)
{
    struct tombstone_directory *directory =
        atomic_load_explicit(&tombstones->directory, memory_order_relaxed);
    struct tombstone_page *page =
        atomic_load_explicit(&directory->page[row >> TOMBSTONE_PAGE_SHIFT], memory_order_relaxed);
    atomic_store_explicit(&page->end[row & (TOMBSTONE_PAGE_ROWS - 1)], commit,
                          memory_order_release);
    OMENDB_YIELD("tombstones_set, ended");
    atomic_fetch_add_explicit(&tombstones->dead, 1, memory_order_release);
    if (commit > atomic_load_explicit(&tombstones->newest, memory_order_relaxed))
        atomic_store_explicit(&tombstones->newest, commit, memory_order_release);
}

OMENDB_INTERNAL int tombstones_each(const struct tombstones *tombstones, uint32_t rows,
                                    int (*each)(void *context, uint32_t row, uint64_t end),
                                    void *context)
{
    struct tombstone_directory *directory =
        atomic_load_explicit(&tombstones->directory, memory_order_acquire);
    for (uint32_t number = 0; directory != NULL && number < directory->pages; number++) {
        struct tombstone_page *page =
            atomic_load_explicit(&directory->page[number], memory_order_acquire);
        for (uint32_t i = 0; page != NULL && i < TOMBSTONE_PAGE_ROWS; i++) {
            uint32_t row = (number << TOMBSTONE_PAGE_SHIFT) + i;
            uint64_t end = atomic_load_explicit(&page->end[i], memory_order_acquire);
            if (end == 0 || row >= rows)
                continue;
            int answer = each(context, row, end);
            if (answer != 0)
                return answer;
        }
    }
    return 0;
}
