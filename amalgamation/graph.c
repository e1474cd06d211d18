/* graph.c: where the graph's rows live: growing stores, levels, what a view sees, and the
 * structural check.
 *
 * Invariants of a graph under construction:
 * - Everything a row needs (link slots holding its own number, a level, upper blocks) is written by
 *   graph_reserve before graph_set_count shows the row with a release store. A view loads the
 * entry, then the count, then the upper count and the directories, each with acquire: so the
 * directories cover the count, and the count covers the entry.
 * - Memory of rows never moves. A directory that was outgrown is kept until the end.
 *
 * Levels are a hash of seed and row, compared with 2^64 / M, 2^64 / M^2, ...: the paper's
 * floor(-ln(u) / ln(M)) in integers, the same on every machine and in every order of insertion.
 *
 * Rejected: one mapping of the greatest size, reserved and committed step by step: the host's
 * allocator and its limit would not see it. Rejected: a lock a row, as hnswlib has it (40 bytes
 * each); 256 stripes do. */
#include "graph_internal.h"

#include "error.h"

#include <assert.h>

/* Stores */

#define STORE_GRANULE   ((uint32_t)1 << ROWS_SHIFT)
#define STORE_MAX_STEP  ((size_t)32 << 20)
#define STORE_FULL_STEP ((size_t)1 << 20)

/* Heads the list of everything a store owns: runs of granules (aligned) and directories. */
struct rows_allocation {
    struct rows_allocation *next;
    void *block;
    size_t size;
    int aligned;
};

OMENDB_INTERNAL void rows_store_init(struct rows_store *store, struct memory *memory, size_t stride)
{
    memset(store, 0, sizeof *store);
    store->memory = memory;
    store->stride = stride;
    atomic_init(&store->directory, NULL);
}

static void *rows_store_allocate(struct rows_store *store, size_t size, int aligned)
{
    struct rows_allocation *node = memory_alloc(store->memory, sizeof *node);

    if (node == NULL) {
        return NULL;
    }
    node->block =
        aligned ? memory_alloc_aligned(store->memory, size) : memory_alloc(store->memory, size);
    if (node->block == NULL) {
        memory_free(store->memory, node, sizeof *node);
        return NULL;
    }
    node->size = size;
    node->aligned = aligned;
    node->next = store->allocations;
    store->allocations = node;
    return node->block;
}

/* Of a directory for `granules`: at least twice what it has. */
static uint32_t rows_store_directory_step(const struct rows_store *store, uint32_t granules)
{
    const uint32_t twice = store->directory_capacity * 2;

    return twice > granules ? twice : granules;
}

static int rows_store_grow_directory(struct rows_store *store, uint32_t granules)
{
    uint8_t **old = atomic_load_explicit(&store->directory, memory_order_relaxed);
    const uint32_t capacity = rows_store_directory_step(store, granules);
    uint8_t **fresh;

    if (granules <= store->directory_capacity) {
        return OMENDB_OK;
    }
    fresh = rows_store_allocate(store, memory_multiply(capacity, sizeof *fresh), 0);
    if (fresh == NULL) {
        return OMENDB_NOMEM;
    }
    if (store->reserved != 0) {
        memcpy(fresh, old, (store->reserved >> ROWS_SHIFT) * sizeof *fresh);
    }
    store->directory_capacity = capacity;
    atomic_store_explicit(&store->directory, fresh, memory_order_release);
    return OMENDB_OK;
}

/* How many granules to take when `missing` are needed and `have` are there: at least half as many
 * again while the store is small, an eighth (which soon is a huge page) when it is large. */
static uint32_t rows_store_step(const struct rows_store *store, uint32_t have, uint32_t missing)
{
    const size_t granule_bytes = store->stride << ROWS_SHIFT;
    size_t bytes = (size_t)have * granule_bytes / 2;
    uint32_t step;

    if (bytes > STORE_FULL_STEP) {
        bytes = (size_t)have * granule_bytes / 8;
        bytes = bytes < STORE_FULL_STEP ? STORE_FULL_STEP : bytes;
        bytes = bytes > STORE_MAX_STEP ? STORE_MAX_STEP : bytes;
    }
    step = (uint32_t)(bytes / granule_bytes);
    return step > missing ? step : missing;
}

static uint32_t rows_store_granules(uint32_t rows)
{
    return (rows >> ROWS_SHIFT) + ((rows & (STORE_GRANULE - 1)) != 0);
}

OMENDB_INTERNAL size_t rows_store_reserve_bytes(const struct rows_store *store, uint32_t rows)
{
    const uint32_t have = store->reserved >> ROWS_SHIFT, needed = rows_store_granules(rows);
    uint32_t step;
    size_t bytes;

    if (needed <= have) {
        return 0;
    }
    step = rows_store_step(store, have, needed - have);
    bytes = memory_aligned_total(memory_multiply(step, store->stride << ROWS_SHIFT));
    bytes = memory_add(bytes, sizeof(struct rows_allocation));
    if (have + step > store->directory_capacity) {
        step = rows_store_directory_step(store, have + step);
        bytes = memory_add(bytes, memory_multiply(step, sizeof(uint8_t *)));
        bytes = memory_add(bytes, sizeof(struct rows_allocation));
    }
    return bytes;
}

OMENDB_INTERNAL int rows_store_reserve(struct rows_store *store, uint32_t rows)
{
    const uint32_t have = store->reserved >> ROWS_SHIFT, needed = rows_store_granules(rows);
    const size_t granule_bytes = store->stride << ROWS_SHIFT;
    uint32_t step;
    uint8_t *block, **directory;

    if (needed <= have) {
        return OMENDB_OK;
    }
    step = rows_store_step(store, have, needed - have);
    if (rows_store_grow_directory(store, have + step) != OMENDB_OK) {
        return OMENDB_NOMEM;
    }
    block = rows_store_allocate(store, memory_multiply(step, granule_bytes), 1);
    if (block == NULL) {
        return OMENDB_NOMEM;
    }
    directory = atomic_load_explicit(&store->directory, memory_order_relaxed);
    for (uint32_t i = 0; i < step; i++) {
        directory[have + i] = block + i * granule_bytes;
    }
    if (have == 0) {
        store->first_rows = step << ROWS_SHIFT;
    }
    store->reserved = (have + step) << ROWS_SHIFT;
    return OMENDB_OK;
}

OMENDB_INTERNAL void rows_store_destroy(struct rows_store *store)
{
    struct rows_allocation *node = store->allocations;

    while (node != NULL) {
        struct rows_allocation *next = node->next;
        if (node->aligned) {
            memory_free_aligned(store->memory, node->block, node->size);
        } else {
            memory_free(store->memory, node->block, node->size);
        }
        memory_free(store->memory, node, sizeof *node);
        node = next;
    }
    store->allocations = NULL;
}

OMENDB_INTERNAL struct rows_view rows_store_view(const struct rows_store *store)
{
    struct rows_view view;

    view.chunks = atomic_load_explicit(&store->directory, memory_order_acquire);
    view.shift = ROWS_SHIFT;
    view.mask = STORE_GRANULE - 1;
    view.stride = store->stride;
    return view;
}

/* Of rows below `count`. A store whose first allocation holds them all, as after reserving for a
 * merge, is one chunk: the directory then costs a walk nothing. first_rows is written before
 * `count` is shown and never again. */
static struct rows_view rows_store_view_of(const struct rows_store *store, uint32_t count)
{
    struct rows_view view = rows_store_view(store);

    if (count != 0 && count <= store->first_rows) {
        view.shift = 31;
        view.mask = GRAPH_ROW_MASK;
    }
    return view;
}

/* Graphs */

static int graph_create_locks(struct graph *graph)
{
    uint32_t made = 0;
    int code = platform_mutex_init(&graph->entry_lock);

    if (code != OMENDB_OK) {
        return code;
    }
    while (made < GRAPH_STRIPES && code == OMENDB_OK) {
        code = platform_mutex_init(&graph->stripes[made]);
        made += code == OMENDB_OK;
    }
    if (code != OMENDB_OK) {
        while (made > 0) {
            platform_mutex_destroy(&graph->stripes[--made]);
        }
        platform_mutex_destroy(&graph->entry_lock);
    }
    return code;
}

OMENDB_INTERNAL int graph_create(struct memory *memory, const struct graph_config *config,
                                 const struct rows_view *vectors, struct block_file *vectors_file,
                                 uint64_t vectors_offset, struct graph **graph)
{
    struct graph *made = memory_zalloc(memory, sizeof *made);

    assert(config->M >= 2 && config->kernel != NULL);
    *graph = NULL;
    if (made == NULL) {
        return OMENDB_NOMEM;
    }
    if (graph_create_locks(made) != OMENDB_OK) {
        memory_free(memory, made, sizeof *made);
        return OMENDB_NOMEM;
    }
    made->memory = memory;
    made->config = *config;
    made->links_per_row = 2 * config->M;
    made->keeps_vectors = vectors == NULL;
    if (vectors != NULL) {
        made->borrowed_vectors = *vectors;
    }
    made->vectors_file = vectors_file;
    made->vectors_offset = vectors_offset;
    rows_store_init(&made->vectors, memory, config->vector_bytes);
    rows_store_init(&made->links, memory, made->links_per_row * sizeof(uint32_t));
    rows_store_init(&made->upper_index, memory, sizeof(uint32_t));
    rows_store_init(&made->upper_links, memory, config->M * sizeof(uint32_t));
    rows_store_init(&made->levels, memory, sizeof(uint8_t));
    atomic_init(&made->count, 0);
    atomic_init(&made->upper_count, 0);
    atomic_init(&made->entry, GRAPH_ENTRY_NONE);
    *graph = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL void graph_destroy(struct graph *graph)
{
    if (graph == NULL) {
        return;
    }
    rows_store_destroy(&graph->vectors);
    rows_store_destroy(&graph->links);
    rows_store_destroy(&graph->upper_index);
    rows_store_destroy(&graph->upper_links);
    rows_store_destroy(&graph->levels);
    for (uint32_t i = 0; i < GRAPH_STRIPES; i++) {
        platform_mutex_destroy(&graph->stripes[i]);
    }
    platform_mutex_destroy(&graph->entry_lock);
    memory_free(graph->memory, graph, sizeof *graph);
}

/* The finaliser of SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t graph_hash(uint64_t seed, uint32_t row)
{
    uint64_t hash = seed + (row + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15);

    hash = (hash ^ (hash >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ (hash >> 27)) * UINT64_C(0x94d049bb133111eb);
    return hash ^ (hash >> 31);
}

static uint32_t graph_level_of(const struct graph_config *config, uint32_t row)
{
    const uint64_t hash = graph_hash(config->seed, row);
    uint64_t threshold = UINT64_MAX / config->M;
    uint32_t level = 0;

    while (level < GRAPH_MAX_LEVEL && hash < threshold) {
        threshold /= config->M;
        level++;
    }
    return level;
}

static void graph_clear_slots(uint32_t *slots, uint32_t length, uint32_t row)
{
    for (uint32_t i = 0; i < length; i++) {
        slots[i] = row;
    }
}

/* Level, upper blocks and empty lists of rows [graph->reserved, rows), for which all stores have
 * room. */
static void graph_prepare_rows(struct graph *graph, uint32_t rows, const uint8_t *levels)
{
    const struct rows_view links = rows_store_view(&graph->links);
    const struct rows_view upper_index = rows_store_view(&graph->upper_index);
    const struct rows_view upper_links = rows_store_view(&graph->upper_links);
    const struct rows_view level_rows = rows_store_view(&graph->levels);
    uint32_t block = atomic_load_explicit(&graph->upper_count, memory_order_relaxed);

    for (uint32_t row = graph->reserved; row < rows; row++) {
        const uint32_t level =
            levels != NULL ? levels[row - graph->reserved] : graph_level_of(&graph->config, row);
        *rows_at(&level_rows, row) = (uint8_t)level;
        *(uint32_t *)(void *)rows_at(&upper_index, row) = block;
        graph_clear_slots((uint32_t *)(void *)rows_at(&links, row), graph->links_per_row, row);
        for (uint32_t i = 0; i < level; i++) {
            graph_clear_slots((uint32_t *)(void *)rows_at(&upper_links, block + i), graph->config.M,
                              row);
        }
        block += level;
    }
    atomic_store_explicit(&graph->upper_count, block, memory_order_release);
    graph->reserved = rows;
}

/* Upper blocks of rows [0, rows), of which there are as many as are reserved or more. */
static uint32_t graph_count_blocks(const struct graph *graph, uint32_t rows, const uint8_t *levels)
{
    uint32_t blocks = atomic_load_explicit(&graph->upper_count, memory_order_relaxed);

    for (uint32_t row = graph->reserved; row < rows; row++) {
        blocks +=
            levels != NULL ? levels[row - graph->reserved] : graph_level_of(&graph->config, row);
    }
    return blocks;
}

OMENDB_INTERNAL int graph_reserve_levels(struct graph *graph, uint32_t rows, const uint8_t *levels)
{
    uint32_t blocks;

    assert(rows <= GRAPH_MAX_ROWS);
    if (rows <= graph->reserved) {
        return OMENDB_OK;
    }
    blocks = graph_count_blocks(graph, rows, levels);
    if ((graph->keeps_vectors && rows_store_reserve(&graph->vectors, rows) != OMENDB_OK) ||
        rows_store_reserve(&graph->links, rows) != OMENDB_OK ||
        rows_store_reserve(&graph->upper_index, rows) != OMENDB_OK ||
        rows_store_reserve(&graph->upper_links, blocks) != OMENDB_OK ||
        rows_store_reserve(&graph->levels, rows) != OMENDB_OK) {
        return OMENDB_NOMEM;
    }
    graph_prepare_rows(graph, rows, levels);
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_reserve(struct graph *graph, uint32_t rows)
{
    return graph_reserve_levels(graph, rows, NULL);
}

OMENDB_INTERNAL size_t graph_reserve_bytes(const struct graph *graph, uint32_t rows)
{
    const uint32_t blocks = graph_count_blocks(graph, rows, NULL);
    size_t bytes = memory_add(rows_store_reserve_bytes(&graph->links, rows),
                              rows_store_reserve_bytes(&graph->upper_index, rows));

    bytes = memory_add(bytes, rows_store_reserve_bytes(&graph->upper_links, blocks));
    bytes = memory_add(bytes, rows_store_reserve_bytes(&graph->levels, rows));
    return graph->keeps_vectors ? memory_add(bytes, rows_store_reserve_bytes(&graph->vectors, rows))
                                : bytes;
}

OMENDB_INTERNAL uint8_t *graph_vector(struct graph *graph, uint32_t row)
{
    const struct rows_view vectors = rows_store_view(&graph->vectors);

    assert(graph->keeps_vectors);
    return rows_at(&vectors, row);
}

OMENDB_INTERNAL void graph_set_count(struct graph *graph, uint32_t count)
{
    atomic_store_explicit(&graph->count, count, memory_order_release);
}

OMENDB_INTERNAL int graph_offer_entry(struct graph *graph, uint32_t row, uint32_t level)
{
    uint64_t entry;
    int first;

    platform_mutex_lock(&graph->entry_lock);
    entry = atomic_load_explicit(&graph->entry, memory_order_relaxed);
    first = entry == GRAPH_ENTRY_NONE;
    if (first || level > (uint32_t)(entry >> 32)) {
        atomic_store_explicit(&graph->entry, (uint64_t)level << 32 | row, memory_order_release);
    }
    platform_mutex_unlock(&graph->entry_lock);
    return first;
}

OMENDB_INTERNAL void graph_get_view(const struct graph *graph, struct graph_view *view)
{
    const uint64_t entry = atomic_load_explicit(&graph->entry, memory_order_acquire);
    const uint32_t count = atomic_load_explicit(&graph->count, memory_order_acquire);

    memset(view, 0, sizeof *view);
    view->count = count;
    view->upper_count = atomic_load_explicit(&graph->upper_count, memory_order_acquire);
    view->vectors =
        graph->keeps_vectors ? rows_store_view_of(&graph->vectors, count) : graph->borrowed_vectors;
    view->links = rows_store_view_of(&graph->links, count);
    view->upper_index = rows_store_view_of(&graph->upper_index, count);
    view->upper_links = rows_store_view_of(&graph->upper_links, view->upper_count);
    view->levels = rows_store_view_of(&graph->levels, count);
    view->M = graph->config.M;
    view->links_per_row = graph->links_per_row;
    view->entry_row = entry == GRAPH_ENTRY_NONE ? GRAPH_NO_ROW : (uint32_t)entry;
    view->entry_level = entry == GRAPH_ENTRY_NONE ? 0 : (uint32_t)(entry >> 32);
    view->dim = graph->config.dim;
    view->kernel = graph->config.kernel;
    view->file = graph->vectors_file;
    view->vectors_offset = graph->keeps_vectors ? GRAPH_NOT_IN_FILE : graph->vectors_offset;
    view->links_offset = GRAPH_NOT_IN_FILE;
    view->upper_index_offset = GRAPH_NOT_IN_FILE;
    view->upper_links_offset = GRAPH_NOT_IN_FILE;
    view->levels_offset = GRAPH_NOT_IN_FILE;
}

OMENDB_INTERNAL void graph_release_vectors(const struct graph_view *view, uint32_t first,
                                           uint32_t last)
{
    uint64_t stride = view->vectors.stride;
    if (view->file != NULL)
        blocks_release(view->file, view->vectors_offset + first * stride, (last - first) * stride);
}

/* Lists of a view, trusting nothing */

static int graph_view_upper_slots(const struct graph_view *view, uint32_t row, uint32_t level,
                                  uint32_t **slots, uint32_t *length)
{
    uint32_t block;
    int code = graph_view_touch(view, view->levels_offset, row, sizeof(uint8_t));

    if (code == OMENDB_OK) {
        code = graph_view_touch(view, view->upper_index_offset, row, sizeof(uint32_t));
    }
    if (code != OMENDB_OK || *rows_at(&view->levels, row) < level) {
        return code;
    }
    memcpy(&block, rows_at(&view->upper_index, row), sizeof block);
    if (block >= view->upper_count || level > view->upper_count - block) {
        return OMENDB_OK;
    }
    block += level - 1;
    code = graph_view_touch(view, view->upper_links_offset, block, view->M * sizeof(uint32_t));
    if (code == OMENDB_OK) {
        *slots = (uint32_t *)(void *)rows_at(&view->upper_links, block);
        *length = view->M;
    }
    return code;
}

OMENDB_INTERNAL int graph_view_slots(const struct graph_view *view, uint32_t row, uint32_t level,
                                     uint32_t **slots, uint32_t *length)
{
    int code;

    *slots = NULL;
    *length = 0;
    if (level > 0) {
        return graph_view_upper_slots(view, row, level, slots, length);
    }
    code = graph_view_touch(view, view->links_offset, row, view->links_per_row * sizeof(uint32_t));
    if (code == OMENDB_OK) {
        *slots = (uint32_t *)(void *)rows_at(&view->links, row);
        *length = view->links_per_row;
    }
    return code;
}

OMENDB_INTERNAL int graph_view_reach(const struct graph_view *view, uint32_t start,
                                     uint64_t *reached, uint32_t *queue, uint32_t *found)
{
    uint32_t head = 0, tail = 0;

    if ((reached[start >> 6] >> (start & 63) & 1) == 0) {
        reached[start >> 6] |= UINT64_C(1) << (start & 63);
        queue[tail++] = start;
    }
    for (; head < tail; head++) {
        uint32_t *slots, length;
        const int code = graph_view_slots(view, queue[head], 0, &slots, &length);
        if (code != OMENDB_OK) {
            return code;
        }
        for (uint32_t i = 0; i < length; i++) {
            const uint32_t next = graph_slot_load(&slots[i]);
            if (next < view->count && (reached[next >> 6] >> (next & 63) & 1) == 0) {
                reached[next >> 6] |= UINT64_C(1) << (next & 63);
                queue[tail++] = next;
            }
        }
    }
    *found += tail;
    return OMENDB_OK;
}

/* The check */

struct graph_check_state {
    const struct graph_view *view;
    void (*report)(void *context, const char *sentence);
    void *context;
    uint64_t bad_levels, bad_blocks, bad_links, low_links;
    uint32_t highest_level;
};

static int graph_check_list(struct graph_check_state *state, uint32_t row, uint32_t level)
{
    const struct graph_view *view = state->view;
    uint32_t *slots, length;
    int code = graph_view_slots(view, row, level, &slots, &length);

    for (uint32_t i = 0; i < length; i++) {
        const uint32_t to = graph_slot_load(&slots[i]);
        if (to >= view->count) {
            state->bad_links++;
            continue;
        }
        if (level > 0) {
            code = graph_view_touch(view, view->levels_offset, to, sizeof(uint8_t));
            if (code != OMENDB_OK) {
                return code;
            }
            state->low_links += *rows_at(&view->levels, to) < level;
        }
    }
    return code;
}

static int graph_check_row(struct graph_check_state *state, uint32_t row)
{
    const struct graph_view *view = state->view;
    uint32_t level, block;
    int code = graph_view_touch(view, view->levels_offset, row, sizeof(uint8_t));

    if (code == OMENDB_OK) {
        code = graph_check_list(state, row, 0);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    level = *rows_at(&view->levels, row);
    if (level > GRAPH_MAX_LEVEL) {
        state->bad_levels++;
        return OMENDB_OK;
    }
    state->highest_level = level > state->highest_level ? level : state->highest_level;
    if (level == 0) {
        return OMENDB_OK;
    }
    code = graph_view_touch(view, view->upper_index_offset, row, sizeof(uint32_t));
    if (code != OMENDB_OK) {
        return code;
    }
    memcpy(&block, rows_at(&view->upper_index, row), sizeof block);
    if (block >= view->upper_count || level > view->upper_count - block) {
        state->bad_blocks++;
        return OMENDB_OK;
    }
    for (uint32_t upper = 1; upper <= level && code == OMENDB_OK; upper++) {
        code = graph_check_list(state, row, upper);
    }
    return code;
}

static int graph_check_say(const struct graph_check_state *state, uint64_t number, const char *what)
{
    if (number == 0) {
        return 0;
    }
    (void)error_set(OMENDB_CORRUPT, "graph: %llu %s", (unsigned long long)number, what);
    state->report(state->context, error_text());
    return 1;
}

#define GRAPH_CHECK_STRAYS 8

static int graph_check_reach(struct graph_check_state *state, uint32_t indexed,
                             struct memory *memory)
{
    const struct graph_view *view = state->view;
    const size_t words = (size_t)view->count / 64 + 1;
    uint64_t *reached = memory_zalloc(memory, memory_multiply(words, sizeof *reached));
    uint32_t *queue = memory_array(memory, view->count, sizeof *queue);
    uint32_t found = 0, missing = 0;
    int code = OMENDB_NOMEM;

    if (reached != NULL && queue != NULL) {
        code = graph_view_reach(view, view->entry_row, reached, queue, &found);
    }
    if (code == OMENDB_OK) {
        for (uint32_t row = 0; row < indexed; row++) {
            missing += (reached[row >> 6] >> (row & 63) & 1) == 0;
        }
        /* Shortening full lists can cut off a row here and there while a graph grows; many are
         * damage. In a sealed one graph_repair has left none. */
        if (missing > (view->file != NULL ? 0 : GRAPH_CHECK_STRAYS + indexed / 50)) {
            (void)graph_check_say(state, missing, "rows cannot be reached from the entry");
        }
    }
    memory_free(memory, queue, (size_t)view->count * sizeof *queue);
    memory_free(memory, reached, words * sizeof *reached);
    return code;
}

OMENDB_INTERNAL int graph_check(const struct graph_view *view, uint32_t indexed,
                                struct memory *memory,
                                void (*report)(void *context, const char *sentence), void *context)
{
    struct graph_check_state state = {.view = view, .report = report, .context = context};
    int code = OMENDB_OK, defects = 0;

    if (indexed > view->count) {
        defects +=
            graph_check_say(&state, indexed - view->count, "indexed rows more than there are");
        indexed = view->count;
    }
    if (indexed == 0) {
        return defects ? OMENDB_CORRUPT : OMENDB_OK;
    }
    if (view->entry_row >= view->count || view->entry_level > GRAPH_MAX_LEVEL) {
        (void)graph_check_say(&state, 1, "entry row out of bounds");
        return OMENDB_CORRUPT;
    }
    for (uint32_t row = 0; row < indexed && code == OMENDB_OK; row++) {
        code = graph_check_row(&state, row);
    }
    if (code == OMENDB_OK) {
        code = graph_check_reach(&state, indexed, memory);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    defects += graph_check_say(&state, state.bad_levels, "rows with a level above the limit");
    defects += graph_check_say(&state, state.bad_blocks, "rows with upper blocks out of bounds");
    defects += graph_check_say(&state, state.bad_links, "links to rows that do not exist");
    defects += graph_check_say(&state, state.low_links, "upper links to rows of a lower level");
    defects +=
        graph_check_say(&state, *rows_at(&view->levels, view->entry_row) != view->entry_level,
                        "entry row with another level than stated");
    defects += graph_check_say(&state, state.highest_level > view->entry_level,
                               "entry below the highest level");
    return defects ? OMENDB_CORRUPT : OMENDB_OK;
}

#undef STORE_GRANULE
#undef STORE_MAX_STEP
#undef STORE_FULL_STEP

#undef GRAPH_CHECK_STRAYS
