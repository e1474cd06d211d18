/* graph_internal.h: what the files of the graph share: the keys that order rows, the scratch,
 * and the graph under construction.
 *
 * Keys. A candidate is one 64-bit number: distance, then row, then whether it was expanded. Floats
 * become unsigned numbers of the same order, so that one integer comparison decides, and a NaN out
 * of a damaged file has some place too: every loop that goes to smaller keys ends.
 *
 * Ties. The row part is row ^ mask. A search uses mask 0, so that equal distances are ordered by
 * row. The building uses the row that owns the list as the mask: rows at equal distance are then
 * compared by the XOR of their numbers, which is a metric of its own. So a million copies of one
 * vector are not a heap of equals of which all choose the same few as neighbours and leave the rest
 * unreachable, but points of a space that the same algorithm knows how to connect, with about
 * log2(n) links a row, at the same cost as any others. In building at most half of a pool may be
 * rows at one distance: a point beside a mass of copies would otherwise meet nothing but copies,
 * and be cut off from the points around it. */
#ifndef OMENDB_GRAPH_INTERNAL_H
#define OMENDB_GRAPH_INTERNAL_H

#include "graph.h"
#include "platform.h"
#include "prefetch.h"

#include <string.h>

/* An offset of a graph_view with a file whose section is not in that file: nothing to verify. */
#define GRAPH_NOT_IN_FILE UINT64_MAX

#define GRAPH_KEY_NONE     UINT64_MAX
#define GRAPH_KEY_EXPANDED UINT64_C(1)
#define GRAPH_ROW_MASK     (GRAPH_MAX_ROWS - 1)

/* Adding zero makes -0 and +0 equal. */
static inline uint64_t graph_key(float distance, uint32_t masked_row)
{
    const float positive_zero = distance + 0.0f;
    uint32_t bits;

    memcpy(&bits, &positive_zero, sizeof bits);
    bits ^= (uint32_t)((int32_t)bits >> 31) | UINT32_C(0x80000000);
    return (uint64_t)bits << 32 | (uint64_t)masked_row << 1;
}

static inline uint32_t graph_key_row(uint64_t key, uint32_t mask)
{
    return ((uint32_t)key >> 1) ^ mask;
}

static inline float graph_key_distance(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);
    float distance;

    bits ^= (uint32_t)((int32_t)~bits >> 31) | UINT32_C(0x80000000);
    memcpy(&distance, &bits, sizeof distance);
    return distance;
}

/* Slots are plain uint32_t in memory and in files; a uint32_t and its atomic have one
 * representation on every platform with a lock-free 32-bit atomic. */
_Static_assert(sizeof(_Atomic uint32_t) == sizeof(uint32_t), "a slot is a lock-free atomic");

/* A slot is stored under the stripe of its row, after all of the row that it names; walkers load it
 * without: an old value is a link that was there, too. */
static inline uint32_t graph_slot_load(const uint32_t *slot)
{
    return atomic_load_explicit((const _Atomic uint32_t *)slot, memory_order_acquire);
}

static inline void graph_slot_store(uint32_t *slot, uint32_t row)
{
    atomic_store_explicit((_Atomic uint32_t *)slot, row, memory_order_release);
}

/* The distances of one hop are computed together. */
struct graph_hop {
    uint32_t count;
    uint32_t *rows;
    const void **vectors;
};

struct graph_keys {
    uint64_t *keys;
    size_t count;
    size_t capacity;
};

struct graph_scratch {
    struct memory *memory;
    uint32_t *marks; /* a bit a row; all zero between walks */
    size_t mark_words;
    uint32_t *touched; /* marked rows, to clear */
    size_t touched_count;
    size_t touched_capacity;
    int touched_lost;       /* not all are in `touched` */
    struct graph_keys pool; /* the best so far; sorted, or a heap with the worst on top when wide */
    struct graph_keys nearest; /* a heap of the best k, with the worst on top; only when wide */
    struct graph_keys pending; /* a heap with the nearest on top: to expand, but not in the pool */
    void *hop_block;           /* the arrays below */
    size_t hop_bytes;
    uint32_t hop_capacity;
    struct graph_hop hops[2];
    float *distances;
    const void **selected_vectors;
    uint32_t *selected;
    uint32_t *covers; /* of the rows that the heuristic rejected, in hops[1]: the chosen row that is
                         nearer */
};

OMENDB_INTERNAL int graph_keys_reserve(struct memory *memory, struct graph_keys *keys,
                                       size_t capacity);

/* For the few keys of a list. */
static inline void graph_sort_keys(uint64_t *keys, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        const uint64_t key = keys[i];
        size_t at = i;
        for (; at > 0 && keys[at - 1] > key; at--) {
            keys[at] = keys[at - 1];
        }
        keys[at] = key;
    }
}

/* Lists have at most 512 slots (M at most 256): a walk's queue and two lists always fit. */
#define GRAPH_TOUCHED_LEAST 2048

/* Room for lists of `links` rows and one more. */
OMENDB_INTERNAL int graph_scratch_reserve_hop(struct graph_scratch *scratch, uint32_t links);
OMENDB_INTERNAL int graph_scratch_reserve_marks(struct graph_scratch *scratch, uint32_t rows);
OMENDB_INTERNAL void graph_scratch_clear_marks(struct graph_scratch *scratch);

/* 1 if the row is not marked. */
static inline uint32_t graph_is_fresh(const uint32_t *marks, uint32_t row)
{
    return ~marks[row / 32] >> (row % 32) & 1;
}

/* Marks the row; 1 if it was not before. */
static inline uint32_t graph_mark(uint32_t *marks, uint32_t row)
{
    const uint32_t fresh = graph_is_fresh(marks, row);

    marks[row / 32] |= UINT32_C(1) << (row % 32);
    return fresh;
}

/* The same, remembered for graph_scratch_clear_marks. */
static inline int graph_scratch_mark(struct graph_scratch *scratch, uint32_t row)
{
    if (!graph_mark(scratch->marks, row)) {
        return 0;
    }
    if (scratch->touched_count < scratch->touched_capacity) {
        scratch->touched[scratch->touched_count++] = row;
    } else {
        scratch->touched_lost = 1;
    }
    return 1;
}

/* One walk's terms. */
struct graph_walk_terms {
    const struct graph_view *view;
    struct graph_scratch *scratch;
    const void *query;
    uint32_t level;
    uint32_t tie_mask;
    size_t ef;
    size_t tie_limit; /* rows at one distance that the pool holds; 0: any number */
    const struct graph_filter *filter;
    struct graph_counters *counters;
    size_t k; /* as in graph_effort; no stretch: by ef alone */
    size_t wanted;
    float stretch;
    float origin;
    int fits;
    double share;
    uint32_t share_sample;
    uint64_t (*look)(void *context, const struct graph_progress *progress);
    void *look_context;
    uint64_t look_at;
};

/* From `start` (a key) at terms->level: leaves the best keys, ascending, in scratch->pool.
 * OMENDB_DONE: it was given up. */
OMENDB_INTERNAL int graph_walk(const struct graph_walk_terms *terms, uint64_t start);

/* From the view's entry greedily down to terms->level: the key of the row reached; GRAPH_KEY_NONE
 * in an empty graph. */
OMENDB_INTERNAL int graph_walk_descend(const struct graph_walk_terms *terms, uint64_t *reached);

/* The list of a row at a level; *length 0 where it has none (only damaged files ask for that). */
OMENDB_INTERNAL int graph_view_slots(const struct graph_view *view, uint32_t row, uint32_t level,
                                     uint32_t **slots, uint32_t *length);

/* Whether bytes of the view need blocks_touch at all; callers ask once a walk. */
static inline int graph_view_verifies(const struct graph_view *view)
{
    return view->file != NULL &&
           atomic_load_explicit(&view->file->unverified, memory_order_acquire) != 0;
}

static inline int graph_view_touch(const struct graph_view *view, uint64_t section, uint64_t index,
                                   size_t bytes)
{
    if (view->file == NULL || section == GRAPH_NOT_IN_FILE) {
        return OMENDB_OK;
    }
    return blocks_touch(view->file, section + index * bytes, bytes);
}

static inline int graph_view_touch_vector(const struct graph_view *view, uint32_t row)
{
    return graph_view_touch(view, view->vectors_offset, row, view->vectors.stride);
}

/* A power of two. */
#define GRAPH_STRIPES 256

struct graph {
    struct memory *memory;
    struct graph_config config;
    uint32_t links_per_row;
    int keeps_vectors;
    struct rows_view borrowed_vectors;
    struct block_file *vectors_file;
    uint64_t vectors_offset;
    struct rows_store vectors;
    struct rows_store links;
    struct rows_store upper_index;
    struct rows_store upper_links;
    struct rows_store levels;
    uint32_t reserved; /* rows that have links and a level; guarded by the one that reserves */
    uint32_t adopted;  /* rows taken over; between graph_adopt_begin and graph_adopt_end */
    /* Each stored release after what it covers; graph_get_view loads them acquire, in the order
     * that graph.c argues. The one that reserves rows writes the counts. */
    _Atomic uint32_t count;
    _Atomic uint32_t upper_count;
    _Atomic uint64_t entry; /* level << 32 | row, or GRAPH_ENTRY_NONE; written under entry_lock */
    struct platform_mutex entry_lock; /* taken alone */
    struct platform_mutex
        stripes[GRAPH_STRIPES]; /* writers of a row's slots; at most one is held at a time */
};

#define GRAPH_ENTRY_NONE UINT64_MAX

/* Makes the row the entry if it is the first or its level is above the entry's; 1 if it was the
 * first. */
OMENDB_INTERNAL int graph_offer_entry(struct graph *graph, uint32_t row, uint32_t level);

/* Makes room for rows up to `rows`; levels[i] is that of row graph->reserved + i; NULL: by the
 * hash. */
OMENDB_INTERNAL int graph_reserve_levels(struct graph *graph, uint32_t rows, const uint8_t *levels);

/* Marks in `reached` (a bit a row) what can be reached at the base from `start`, adds to *found how
 * many were new. queue: view->count places. */
OMENDB_INTERNAL int graph_view_reach(const struct graph_view *view, uint32_t start,
                                     uint64_t *reached, uint32_t *queue, uint32_t *found);

#endif
