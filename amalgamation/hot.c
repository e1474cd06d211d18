/* hot.c: what a walk reads of a segment (codes or vectors, and the graph), copied into memory of
 * huge pages.
 *
 * Reading random rows through a mapping of 4 KiB pages misses the TLB at each; the copy makes a
 * search 1.3 to 2 times faster, and the mapped pages are let go, so that nothing is resident twice.
 * Segments that were walked often enough get a copy in the background, while there is memory: at
 * most half of memory_limit is in use afterwards. The copy is published by one store and lives as
 * long as its segment.
 *
 * Not copied: what already lies in anonymous memory (OMENDB_IO_PREAD, a vfs that cannot map,
 * ":memory:"), full vectors of floats (they are read for reranking only, unless no codes serve),
 * small segments, whose pages the TLB holds. */
#include "database.h"

#include <string.h>

#define HOT_MIN_BYTES (UINT64_C(4) << 20)
#define HOT_SECTIONS  5
#define HOT_GRACE_US  20000

struct segment_hot {
    size_t bytes;
    uint8_t *block;
    uint8_t *chunks[HOT_SECTIONS];
    struct graph_view view;
};

/* A section of the view: where it is in the file, and which field of the copy finds it. */
struct hot_section {
    struct rows_view *rows;
    uint64_t offset;
    uint64_t length;
};

static void hot_list_sections(const struct segment *segment, struct graph_view *view,
                              struct hot_section *sections)
{
    uint64_t rows = segment->info.indexed_rows;
    const struct hot_section all[HOT_SECTIONS] = {
        {&view->vectors, view->vectors_offset, rows * view->vectors.stride},
        {&view->links, view->links_offset, rows * view->links.stride},
        {&view->levels, view->levels_offset, rows * view->levels.stride},
        {&view->upper_index, view->upper_index_offset, rows * view->upper_index.stride},
        {&view->upper_links, view->upper_links_offset,
         (uint64_t)view->upper_count * view->upper_links.stride}};
    memcpy(sections, all, sizeof all);
}

static size_t hot_align(uint64_t bytes)
{
    return (size_t)((bytes + OMENDB_CACHE_LINE - 1) / OMENDB_CACHE_LINE * OMENDB_CACHE_LINE);
}

static size_t hot_bytes(const struct hot_section *sections)
{
    size_t bytes = 0;
    for (size_t i = 0; i < HOT_SECTIONS; i++)
        bytes = memory_add(bytes, hot_align(sections[i].length));
    return bytes;
}

OMENDB_INTERNAL int hot_is_wanted(const omendb *db, const struct segment *segment)
{
    const struct memory *memory = &db->memory;
    struct hot_section sections[HOT_SECTIONS];
    struct graph_view view = segment->graph;
    if (db->in_memory || !blocks_are_mapped(view.file) || atomic_load(&segment->hot) != NULL ||
        (segment->codes.step == 0.0f && codes_apply_to(&segment->codes.vectors) &&
         (segment->info.flags & SEGMENT_NO_RANGE) == 0)) /* a merge will make some */
        return 0;
    hot_list_sections(segment, &view, sections);
    size_t bytes = hot_bytes(sections), used = (size_t)atomic_load(&memory->used);
    return bytes >= HOT_MIN_BYTES && (memory->limit == 0 || memory_add(memory_aligned_total(bytes),
                                                                       used) <= memory->limit / 2);
}

static int hot_copy(const struct segment *segment, struct segment_hot *hot)
{
    struct block_file *file = segment->graph.file;
    struct hot_section sections[HOT_SECTIONS];
    uint8_t *at = hot->block;
    int code = OMENDB_OK;
    hot->view = segment->graph;
    hot_list_sections(segment, &hot->view, sections);
    for (size_t i = 0; i < HOT_SECTIONS && code == OMENDB_OK; i++) {
        hot->chunks[i] = at;
        sections[i].rows->chunks = &hot->chunks[i];
        if (sections[i].length == 0)
            continue;
        code = blocks_touch(file, sections[i].offset, sections[i].length);
        if (code == OMENDB_OK) {
            memcpy(at, file->base + sections[i].offset, sections[i].length);
            at += hot_align(sections[i].length);
        }
    }
    hot->view.file = NULL; /* everything was verified */
    return code;
}

OMENDB_INTERNAL void hot_destroy(struct memory *memory, struct segment_hot *hot)
{
    if (hot == NULL)
        return;
    memory_free_aligned(memory, hot->block, hot->bytes);
    memory_free(memory, hot, sizeof *hot);
}

/* Lets the mapped pages go. A search that began before the copy was there would bring many of them
 * back, so those get some time to end. */
static void hot_release_mapped(struct segment *segment)
{
    struct hot_section sections[HOT_SECTIONS];
    struct graph_view view = segment->graph;
    hot_list_sections(segment, &view, sections);
    platform_sleep_us(HOT_GRACE_US);
    for (size_t i = 0; i < HOT_SECTIONS; i++) {
        if (sections[i].length != 0)
            blocks_release(view.file, sections[i].offset, sections[i].length);
    }
}

OMENDB_INTERNAL int hot_make(omendb *db, struct segment *segment)
{
    struct hot_section sections[HOT_SECTIONS];
    struct graph_view view = segment->graph;
    struct segment_hot *none = NULL, *hot = memory_zalloc(&db->memory, sizeof *hot);
    if (hot == NULL)
        return OMENDB_NOMEM;
    hot_list_sections(segment, &view, sections);
    hot->bytes = hot_bytes(sections);
    hot->block = memory_alloc_aligned(&db->memory, hot->bytes);
    int code = hot->block == NULL ? OMENDB_NOMEM : hot_copy(segment, hot);
    if (code != OMENDB_OK || !atomic_compare_exchange_strong(&segment->hot, &none, hot)) {
        hot_destroy(&db->memory, hot);
        return code;
    }
    hot_release_mapped(segment);
    return OMENDB_OK;
}

OMENDB_INTERNAL const struct graph_view *hot_view(const struct segment *segment)
{
    const struct segment_hot *hot = atomic_load_explicit(&segment->hot, memory_order_acquire);
    return hot == NULL ? &segment->graph : &hot->view;
}

OMENDB_INTERNAL uint64_t hot_size(const struct segment *segment)
{
    const struct segment_hot *hot = atomic_load_explicit(&segment->hot, memory_order_acquire);
    return hot == NULL ? 0 : hot->bytes;
}

#undef HOT_MIN_BYTES
#undef HOT_SECTIONS
#undef HOT_GRACE_US
