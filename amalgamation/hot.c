/* hot.c: what a walk reads of a segment (codes or vectors, and the graph), copied into memory of
 * huge pages.
 *
 * Reading random rows through a mapping of 4 KiB pages misses the TLB at each; the copy makes a
 * search 1.3 to 2 times faster, and the mapped pages are let go, so that nothing is resident twice.
 * Segments that were walked often enough get a copy in the background, while there is memory: at
 * most half of memory_limit is in use afterwards. The copy is published by one store and lives as
 * long as the handle of its segment. One thread at a time makes copies (work.c).
 *
 * Given back all at once when a checkpoint, a merge or a writer lacks memory: a new handle of the
 * segment takes the place of the one with the copy in a new version, so the last reader of the old
 * version frees it, and a search pays nothing for that. It may happen beside a merge, which keeps
 * the copies of its collection until it ends and knows its inputs again by segment_is_same. While a
 * merge or a checkpoint tries again with that memory, no copies are made.
 *
 * Searches that began before a copy was there bring some of the mapped pages back, so those are let
 * go a second time, after as many walks again.
 *
 * Not copied: what already lies in anonymous memory (OMENDB_IO_PREAD, a vfs that cannot map,
 * ":memory:"), full vectors of floats (they are read for reranking only, unless no codes serve),
 * small segments, whose pages the TLB holds. */
#include "database.h"

#include <string.h>

#define HOT_MIN_BYTES (UINT64_C(4) << 20)
#define HOT_SECTIONS  5
#define HOT_GRACE_US  20000 /* for searches under way when copies are given back */
#define HOT_POLL_US   1000

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

/* Whether a copy would help. */
static int hot_is_wanted(const omendb *db, const struct segment *segment)
{
    struct hot_section sections[HOT_SECTIONS];
    struct graph_view view = segment->graph;
    if (db->in_memory || !blocks_are_mapped(view.file) || atomic_load(&segment->hot) != NULL ||
        (segment->codes.step == 0.0f && codes_apply_to(&segment->codes.vectors) &&
         (segment->info.flags & SEGMENT_NO_RANGE) == 0)) /* a merge will make some */
        return 0;
    hot_list_sections(segment, &view, sections);
    return hot_bytes(sections) >= HOT_MIN_BYTES;
}

/* Whether there is memory for it. */
static int hot_fits(const omendb *db, const struct segment *segment)
{
    const struct memory *memory = &db->memory;
    struct hot_section sections[HOT_SECTIONS];
    struct graph_view view = segment->graph;
    hot_list_sections(segment, &view, sections);
    size_t bytes = memory_aligned_total(hot_bytes(sections));
    return atomic_load(&db->hot_paused) == 0 &&
           (memory->limit == 0 ||
            memory_add(bytes, (size_t)atomic_load(&memory->used)) <= memory->limit / 2);
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
    size_t spare = hot->block == NULL ? 0 : memory_aligned_total(hot->bytes);
    memory_free_aligned(memory, hot->block, hot->bytes);
    memory_free(memory, hot, sizeof *hot);
    /* Last: whoever waits for this takes the memory then. */
    atomic_fetch_sub(&memory->spare, spare);
}

static void hot_release_mapped(struct segment *segment)
{
    struct hot_section sections[HOT_SECTIONS];
    struct graph_view view = segment->graph;
    hot_list_sections(segment, &view, sections);
    for (size_t i = 0; i < HOT_SECTIONS; i++) {
        if (sections[i].length != 0)
            blocks_release(view.file, sections[i].offset, sections[i].length);
    }
}

static int hot_make(omendb *db, struct segment *segment)
{
    struct hot_section sections[HOT_SECTIONS];
    struct graph_view view = segment->graph;
    struct segment_hot *hot = memory_zalloc(&db->memory, sizeof *hot);
    if (hot == NULL)
        return OMENDB_NOMEM;
    hot_list_sections(segment, &view, sections);
    hot->bytes = hot_bytes(sections);
    hot->block = memory_alloc_aligned(&db->memory, hot->bytes);
    if (hot->block != NULL)
        atomic_fetch_add(&db->memory.spare, memory_aligned_total(hot->bytes));
    int code = hot->block == NULL ? OMENDB_NOMEM : hot_copy(segment, hot);
    /* Somebody may have begun to lack the memory meanwhile. */
    if (code == OMENDB_OK && atomic_load(&db->hot_paused) != 0)
        code = OMENDB_NOMEM;
    if (code != OMENDB_OK) {
        hot_destroy(&db->memory, hot);
        return code;
    }
    atomic_store(&segment->walks, SEGMENT_WALKS_TO_HEAT);
    OMENDB_YIELD("hot_make, made");
    atomic_store_explicit(&segment->hot, hot, memory_order_release);
    hot_release_mapped(segment);
    return OMENDB_OK;
}

OMENDB_INTERNAL void hot_notice(struct collection *collection, struct segment *segment)
{
    const omendb *db = collection->db;
    int again = work_notice_reading(collection);
    if (atomic_load(&segment->hot) != NULL || hot_is_wanted(db, segment)) {
        if (atomic_load(&segment->hot) != NULL || hot_fits(db, segment))
            work_notice_heat(collection);
        else
            atomic_store(&segment->walks, 0);
    }
    /* Walks are counted on from where they ask for nothing else. */
    if (again && atomic_load(&segment->walks) >= 2 * SEGMENT_WALKS_TO_HEAT)
        atomic_store(&segment->walks, SEGMENT_WALKS_TO_HEAT);
}

OMENDB_INTERNAL int hot_tend(omendb *db, struct segment *segment)
{
    uint32_t walks = atomic_load(&segment->walks);
    int code = OMENDB_OK;
    if (atomic_load(&segment->hot) != NULL) {
        if (walks >= 2 * SEGMENT_WALKS_TO_HEAT)
            hot_release_mapped(segment);
    } else if (walks >= SEGMENT_WALKS_TO_HEAT && hot_is_wanted(db, segment)) {
        code = hot_fits(db, segment) ? hot_make(db, segment) : OMENDB_NOMEM;
        if (code == OMENDB_NOMEM)
            atomic_store(&segment->walks, 0);
    }
    return code == OMENDB_NOMEM ? OMENDB_OK : code;
}

/* ------------------------------------------------------------------ giving back */

/* What takes the place of a segment of the version: itself, or a handle without the copy. */
static struct segment *hot_without(omendb *db, const struct collection *collection,
                                   struct segment *segment)
{
    struct segment *cold =
        atomic_load(&segment->hot) == NULL ? NULL : segment_reopen(db, collection, segment);
    return cold != NULL ? cold : segment_reference(segment);
}

/* maintenance_mutex, commit_mutex. */
static void hot_replace_segments(omendb *db, struct collection *collection)
{
    const struct version *old = atomic_load(&collection->version);
    uint32_t hot = 0;
    for (uint32_t i = 0; i < old->segment_count; i++)
        hot += atomic_load(&old->segments[i]->hot) != NULL;
    struct version *version =
        hot == 0 ? NULL : version_create(&db->memory, old->memtable_count, old->segment_count);
    if (version == NULL)
        return;
    for (uint32_t i = 0; i < old->memtable_count; i++)
        version_put_memtable(version, i, old->memtables[i], old->memtable_overlays[i]);
    for (uint32_t i = 0; i < old->segment_count; i++) {
        version->segments[i] = hot_without(db, collection, old->segments[i]);
        version->segment_overlays[i] = overlay_reference(old->segment_overlays[i]);
    }
    version_install(collection, version);
}

OMENDB_INTERNAL int hot_give_back(omendb *db)
{
    uint64_t before = atomic_load(&db->memory.spare), waited = 0;
    if (before == 0)
        return 0;
    memory_begin_maintenance();
    platform_mutex_lock(&db->maintenance_mutex);
    platform_mutex_lock(&db->commit_mutex);
    for (size_t i = 0; i < db->catalog.count; i++)
        hot_replace_segments(db, db->catalog.items[i]);
    platform_mutex_unlock(&db->commit_mutex);
    platform_mutex_unlock(&db->maintenance_mutex);
    memory_end_maintenance();
    for (; atomic_load(&db->memory.spare) != 0 && waited < HOT_GRACE_US; waited += HOT_POLL_US)
        platform_sleep_us(HOT_POLL_US);
    return atomic_load(&db->memory.spare) < before;
}

OMENDB_INTERNAL int hot_may_pause(const omendb *db)
{
    return atomic_load(&db->memory.spare) != 0;
}

OMENDB_INTERNAL int hot_pause(omendb *db)
{
    if (atomic_load(&db->memory.spare) == 0)
        return 0;
    atomic_fetch_add(&db->hot_paused, 1);
    hot_give_back(db);
    return 1;
}

OMENDB_INTERNAL void hot_resume(omendb *db)
{
    atomic_fetch_sub(&db->hot_paused, 1);
}

OMENDB_INTERNAL const struct graph_view *hot_view(const struct segment *segment)
{
    const struct segment_hot *hot = atomic_load_explicit(&segment->hot, memory_order_acquire);
    OMENDB_YIELD("hot_view");
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
#undef HOT_POLL_US
