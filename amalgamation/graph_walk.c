/* graph_walk.c: the walk to the nearest rows (algorithms 2 and 5 of the HNSW paper), for searching
 * and building.
 *
 * What makes it fast:
 * - One sorted array of the best `ef` keys is both the result and the queue of rows to expand; a
 * position is found by bisection without branches. Two binary heaps, as in the paper, cost more up
 * to some thousand entries; from WALK_WIDE on ("wide") they are used, because a move then costs
 * more than a heap's logarithm.
 * - All unvisited neighbours of a row (a hop) are gathered without branches, and their distances
 * computed in groups. Three hops overlap: while the distances of one are computed, the vectors of
 * the next and the links of the one after come from memory. The rows to expand are thus chosen
 * before the newest distances are in, which expands a few rows more (1 to 4 % more distances, and
 * a little more recall). Measured on Zen 3: nothing lost with f32, which waits for bandwidth, and
 * 3 to 7 % won with bytes.
 * - Visited rows are one bit each, which for a million rows stays in the second-level cache; the
 * words touched are remembered and cleared afterwards. Rejected: bytes with an epoch, eight times
 * the cache for one clearing less.
 *
 * Rows that a filter hides are walked through by a heap of their own beside the pool, bounded by
 * the worst returnable row, so that the walk with a filter is the same walk and costs what the
 * hidden rows cost.
 *
 * Every loop ends on any input: a row is gathered at most once a walk, and the greedy descent goes
 * to smaller keys. */
#include "graph_internal.h"

#define WALK_WIDE        2048 /* entries of the pool */
#define WALK_GROUP_BYTES 2560
#define WALK_MAX_GROUP   16

/* Scratch */

OMENDB_INTERNAL struct graph_scratch *graph_scratch_create(struct memory *memory)
{
    struct graph_scratch *scratch = memory_zalloc(memory, sizeof *scratch);

    if (scratch != NULL) {
        scratch->memory = memory;
    }
    return scratch;
}

OMENDB_INTERNAL void graph_scratch_destroy(struct graph_scratch *scratch)
{
    struct memory *memory;

    if (scratch == NULL) {
        return;
    }
    memory = scratch->memory;
    memory_free_aligned(memory, scratch->marks, scratch->mark_words * sizeof *scratch->marks);
    memory_free(memory, scratch->touched, scratch->touched_capacity * sizeof *scratch->touched);
    memory_free(memory, scratch->pool.keys, scratch->pool.capacity * sizeof *scratch->pool.keys);
    memory_free(memory, scratch->pending.keys,
                scratch->pending.capacity * sizeof *scratch->pending.keys);
    memory_free(memory, scratch->hop_block, scratch->hop_bytes);
    memory_free(memory, scratch, sizeof *scratch);
}

OMENDB_INTERNAL int graph_keys_reserve(struct memory *memory, struct graph_keys *keys,
                                       size_t capacity)
{
    size_t wanted = keys->capacity + keys->capacity / 2;
    uint64_t *fresh;

    if (capacity <= keys->capacity) {
        return OMENDB_OK;
    }
    wanted = wanted < capacity ? capacity : wanted;
    wanted = wanted < 64 ? 64 : wanted;
    fresh = memory_resize(memory, keys->keys, keys->capacity * sizeof *fresh,
                          memory_multiply(wanted, sizeof *fresh));
    if (fresh == NULL) {
        return OMENDB_NOMEM;
    }
    keys->keys = fresh;
    keys->capacity = wanted;
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_scratch_reserve_hop(struct graph_scratch *scratch, uint32_t links)
{
    const size_t room = (size_t)links + 1;
    const size_t bytes = room * (3 * sizeof(void *) + 4 * sizeof(uint32_t) + sizeof(float));
    unsigned char *block;

    if (links <= scratch->hop_capacity) {
        return OMENDB_OK;
    }
    block = memory_alloc(scratch->memory, bytes);
    if (block == NULL) {
        return OMENDB_NOMEM;
    }
    memory_free(scratch->memory, scratch->hop_block, scratch->hop_bytes);
    scratch->hop_block = block;
    scratch->hop_bytes = bytes;
    scratch->hop_capacity = links;
    scratch->hops[0].vectors = (const void **)(void *)block;
    scratch->hops[1].vectors = scratch->hops[0].vectors + room;
    scratch->selected_vectors = scratch->hops[1].vectors + room;
    scratch->hops[0].rows = (uint32_t *)(void *)(scratch->selected_vectors + room);
    scratch->hops[1].rows = scratch->hops[0].rows + room;
    scratch->selected = scratch->hops[1].rows + room;
    scratch->covers = scratch->selected + room;
    scratch->distances = (float *)(void *)(scratch->covers + room);
    return OMENDB_OK;
}

/* An eighth of the rows is remembered; a walk that touches more clears everything. */
OMENDB_INTERNAL int graph_scratch_reserve_marks(struct graph_scratch *scratch, uint32_t rows)
{
    const size_t needed = (size_t)rows / 64 + 1;
    size_t words = scratch->mark_words + scratch->mark_words / 2;
    size_t capacity;
    uint64_t *marks;
    uint32_t *touched;

    if (needed <= scratch->mark_words) {
        return OMENDB_OK;
    }
    words = words < needed ? needed : words;
    capacity = words * 8;
    marks = memory_alloc_aligned(scratch->memory, memory_multiply(words, sizeof *marks));
    touched = memory_array(scratch->memory, capacity, sizeof *touched);
    if (marks == NULL || touched == NULL) {
        memory_free_aligned(scratch->memory, marks, words * sizeof *marks);
        memory_free(scratch->memory, touched, capacity * sizeof *touched);
        return OMENDB_NOMEM;
    }
    memory_free_aligned(scratch->memory, scratch->marks, scratch->mark_words * sizeof *marks);
    memory_free(scratch->memory, scratch->touched, scratch->touched_capacity * sizeof *touched);
    scratch->marks = marks;
    scratch->mark_words = words;
    scratch->touched = touched;
    scratch->touched_capacity = capacity;
    scratch->touched_count = 0;
    return OMENDB_OK;
}

OMENDB_INTERNAL void graph_scratch_clear_marks(struct graph_scratch *scratch)
{
    if (scratch->touched_count > scratch->touched_capacity) {
        memset(scratch->marks, 0, scratch->mark_words * sizeof *scratch->marks);
    } else {
        for (size_t i = 0; i < scratch->touched_count; i++) {
            scratch->marks[scratch->touched[i]] = 0;
        }
    }
    scratch->touched_count = 0;
}

/* Keys: a sorted array, and a heap. `flip` is 0 for the smallest on top, ~0 for the greatest. */

/* How many of the sorted keys are smaller. */
static size_t walk_position(const uint64_t *keys, size_t count, uint64_t key)
{
    const uint64_t *base = keys;

    if (count == 0) {
        return 0;
    }
    while (count > 1) {
        const size_t half = count / 2;
        base = base[half - 1] < key ? base + half : base;
        count -= half;
    }
    return (size_t)(base - keys) + (*base < key);
}

static void walk_heap_up(uint64_t *keys, size_t at, uint64_t key, uint64_t flip)
{
    while (at > 0) {
        const size_t parent = (at - 1) / 2;
        if ((keys[parent] ^ flip) <= (key ^ flip)) {
            break;
        }
        keys[at] = keys[parent];
        at = parent;
    }
    keys[at] = key;
}

/* Puts the key where the top was. */
static void walk_heap_down(uint64_t *keys, size_t count, uint64_t key, uint64_t flip)
{
    size_t at = 0, child = 1;

    while (child < count) {
        child += child + 1 < count && (keys[child + 1] ^ flip) < (keys[child] ^ flip);
        if ((key ^ flip) <= (keys[child] ^ flip)) {
            break;
        }
        keys[at] = keys[child];
        at = child;
        child = 2 * at + 1;
    }
    keys[at] = key;
}

/* A heap with the greatest on top becomes ascending. */
static void walk_heap_sort(uint64_t *keys, size_t count)
{
    while (count > 1) {
        const uint64_t greatest = keys[0];
        count--;
        walk_heap_down(keys, count, keys[count], ~UINT64_C(0));
        keys[count] = greatest;
    }
}

/* Sorted ones that keep the `capacity` smallest: the key goes to its position, the worst out when
 * full. */
static void walk_put(uint64_t *keys, size_t *count, size_t capacity, size_t at, uint64_t key)
{
    *count -= *count == capacity;
    memmove(keys + at + 1, keys + at, (*count - at) * sizeof *keys);
    keys[at] = key;
    (*count)++;
}

/* The same with a heap that has the greatest on top. */
static void walk_put_wide(uint64_t *keys, size_t *count, size_t capacity, uint64_t key)
{
    if (*count == capacity) {
        walk_heap_down(keys, *count, key, ~UINT64_C(0));
    } else {
        walk_heap_up(keys, (*count)++, key, ~UINT64_C(0));
    }
}

/* The worst of a full one, which a key must be below; else anything is welcome. */
static uint64_t walk_bound(const uint64_t *keys, size_t count, size_t capacity, int wide)
{
    if (count < capacity) {
        return GRAPH_KEY_NONE;
    }
    return wide ? keys[0] : keys[count - 1];
}

/* Walks */

struct walk {
    const struct graph_view *view;
    struct graph_scratch *scratch;
    const struct graph_filter *filter; /* NULL when it hides nothing */
    const void *query;
    uint64_t *pool; /* scratch->pool.keys, of which `size` of at most `ef` are used */
    size_t size;
    size_t ef;
    size_t next; /* not wide: all before are expanded */
    uint64_t bound;
    size_t prefetch_bytes;
    size_t tie_limit;
    uint32_t group; /* distances a call of the kernel */
    uint32_t level;
    uint32_t tie_mask;
    int wide;
    int verifies;
    struct graph_counters counters;
};

static int walk_returnable(const struct graph_filter *filter, uint32_t row)
{
    return row < filter->row_limit && row != filter->excluded_row &&
           (filter->visible == NULL || filter->visible(filter->context, row));
}

static const struct graph_filter *walk_needed_filter(const struct graph_filter *filter,
                                                     uint32_t count)
{
    if (filter == NULL ||
        (filter->row_limit >= count && filter->excluded_row >= count && filter->visible == NULL)) {
        return NULL;
    }
    return filter;
}

static int walk_push_pending(struct walk *walk, uint64_t key)
{
    struct graph_keys *pending = &walk->scratch->pending;

    if (graph_keys_reserve(walk->scratch->memory, pending, pending->count + 1) != OMENDB_OK) {
        return OMENDB_NOMEM;
    }
    walk_heap_up(pending->keys, pending->count++, key, 0);
    return OMENDB_OK;
}

/* A row whose distance is known; its key is below the bound. */
static int walk_offer(struct walk *walk, uint64_t key)
{
    size_t at;

    if (walk->filter != NULL &&
        !walk_returnable(walk->filter, graph_key_row(key, walk->tie_mask))) {
        return walk_push_pending(walk, key);
    }
    if (walk->wide) {
        walk_put_wide(walk->pool, &walk->size, walk->ef, key);
        walk->bound = walk_bound(walk->pool, walk->size, walk->ef, 1);
        return walk_push_pending(walk, key);
    }
    at = walk_position(walk->pool, walk->size, key);
    if (at >= walk->tie_limit && walk->pool[at - walk->tie_limit] >> 32 == key >> 32) {
        return OMENDB_OK;
    }
    walk_put(walk->pool, &walk->size, walk->ef, at, key);
    walk->next = at < walk->next ? at : walk->next;
    walk->bound = walk_bound(walk->pool, walk->size, walk->ef, 0);
    return OMENDB_OK;
}

/* The nearest row that is worth expanding and was not; GRAPH_NO_ROW when there is none. */
static uint32_t walk_take(struct walk *walk)
{
    struct graph_keys *pending = &walk->scratch->pending;
    uint64_t key = GRAPH_KEY_NONE;

    if (!walk->wide) {
        while (walk->next < walk->size && (walk->pool[walk->next] & GRAPH_KEY_EXPANDED) != 0) {
            walk->next++;
        }
        key = walk->next < walk->size ? walk->pool[walk->next] : GRAPH_KEY_NONE;
    }
    if (pending->count != 0 && pending->keys[0] < key && pending->keys[0] <= walk->bound) {
        key = pending->keys[0];
        pending->count--;
        walk_heap_down(pending->keys, pending->count, pending->keys[pending->count], 0);
        return graph_key_row(key, walk->tie_mask);
    }
    if (key == GRAPH_KEY_NONE) {
        return GRAPH_NO_ROW;
    }
    walk->pool[walk->next++] |= GRAPH_KEY_EXPANDED;
    return graph_key_row(key, walk->tie_mask);
}

static void walk_prefetch_links(const struct walk *walk, uint32_t row)
{
    if (walk->level == 0) {
        graph_prefetch_bytes(rows_at(&walk->view->links, row),
                             walk->view->links_per_row * sizeof(uint32_t));
    }
}

/* Vectors [first, last) of a hop. */
static void walk_prefetch_vectors(const struct walk *walk, const struct graph_hop *hop,
                                  uint32_t first, uint32_t last)
{
    last = last < hop->count ? last : hop->count;
    for (uint32_t i = first; i < last; i++) {
        graph_prefetch_bytes(hop->vectors[i], walk->prefetch_bytes);
    }
}

/* Fills hop->rows with the neighbours that were not visited, and marks them. A number out of
 * bounds, which only a damaged file or a list ahead of the view's count has, is taken for the row
 * itself: visited. */
static void walk_gather_rows(struct walk *walk, uint32_t row, const uint32_t *slots,
                             uint32_t length, struct graph_hop *hop)
{
    struct graph_scratch *scratch = walk->scratch;
    const uint32_t count = walk->view->count;
    uint64_t *marks = scratch->marks;
    uint32_t *rows = hop->rows;
    uint32_t *touched;
    uint32_t found = 0;

    if (scratch->touched_count + length > scratch->touched_capacity) {
        for (uint32_t i = 0; i < length; i++) {
            const uint32_t neighbour = graph_slot_load(&slots[i]);
            if (neighbour < count && graph_scratch_mark(scratch, neighbour)) {
                rows[found++] = neighbour;
            }
        }
        hop->count = found;
        return;
    }
    touched = scratch->touched + scratch->touched_count;
    for (uint32_t i = 0; i < length; i++) {
        uint32_t neighbour = graph_slot_load(&slots[i]);
        uint64_t word, bit;
        neighbour = neighbour < count ? neighbour : row;
        bit = UINT64_C(1) << (neighbour & 63);
        word = marks[neighbour >> 6];
        marks[neighbour >> 6] = word | bit;
        rows[found] = neighbour;
        touched[found] = neighbour >> 6;
        found += (word & bit) == 0;
    }
    scratch->touched_count += found;
    hop->count = found;
}

/* The neighbours of a row to visit: rows, addresses, and the first of their vectors on the way. */
static int walk_gather(struct walk *walk, uint32_t row, struct graph_hop *hop)
{
    const struct graph_view *view = walk->view;
    uint32_t *slots, length;
    int code = OMENDB_OK;

    hop->count = 0;
    if (!walk->verifies && walk->level == 0) {
        slots = (uint32_t *)(void *)rows_at(&view->links, row);
        length = view->links_per_row;
    } else {
        code = graph_view_slots(view, row, walk->level, &slots, &length);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    walk->counters.expanded++;
    walk_gather_rows(walk, row, slots, length, hop);
    for (uint32_t i = 0; i < hop->count; i++) {
        hop->vectors[i] = rows_at(&view->vectors, hop->rows[i]);
    }
    for (uint32_t i = 0; walk->verifies && code == OMENDB_OK && i < hop->count; i++) {
        code = graph_view_touch_vector(view, hop->rows[i]);
    }
    walk_prefetch_vectors(walk, hop, 0, walk->group);
    return code;
}

/* Distances of a hop into scratch->distances: while a group is computed the next one is fetched. */
static void walk_compute(struct walk *walk, const struct graph_hop *hop)
{
    const struct graph_view *view = walk->view;
    const uint32_t group = walk->group;
    float *distances = walk->scratch->distances;

    for (uint32_t i = 0; i < hop->count; i += group) {
        const uint32_t left = hop->count - i;
        walk_prefetch_vectors(walk, hop, i + group, i + 2 * group);
        view->kernel->many(walk->query, hop->vectors + i, left < group ? left : group, view->dim,
                           distances + i);
    }
    walk->counters.distances += hop->count;
}

static int walk_finish_hop(struct walk *walk, const struct graph_hop *hop)
{
    const float *distances = walk->scratch->distances;
    int code = OMENDB_OK;

    walk_compute(walk, hop);
    for (uint32_t i = 0; i < hop->count && code == OMENDB_OK; i++) {
        const uint64_t key = graph_key(distances[i], hop->rows[i] ^ walk->tie_mask);
        if (key < walk->bound) {
            code = walk_offer(walk, key);
        }
    }
    return code;
}

/* Three rows are in work: of `next` the list is on its way, of `waiting` the neighbours are
 * gathered and their vectors fetched, of the one before the distances are computed. */
static int walk_run(struct walk *walk)
{
    struct graph_hop *hops = walk->scratch->hops;
    uint32_t waiting = walk_take(walk);
    unsigned current = 0;
    int code = OMENDB_OK;

    hops[0].count = hops[1].count = 0;
    while (code == OMENDB_OK) {
        struct graph_hop *ahead = &hops[current ^ 1], *last = &hops[current];
        const uint32_t next = walk_take(walk);
        if (next == GRAPH_NO_ROW && waiting == GRAPH_NO_ROW && last->count == 0) {
            break;
        }
        if (next != GRAPH_NO_ROW) {
            walk_prefetch_links(walk, next);
        }
        ahead->count = 0;
        if (waiting != GRAPH_NO_ROW) {
            code = walk_gather(walk, waiting, ahead);
        }
        if (code == OMENDB_OK) {
            code = walk_finish_hop(walk, last);
        }
        waiting = next;
        current ^= 1;
    }
    return code;
}

/* As many distances a call as fit in the fetches that a core keeps in flight; the kernels like
 * multiples of four. */
static uint32_t walk_group_of(size_t bytes)
{
    const size_t group = WALK_GROUP_BYTES / (bytes + 1) / 4 * 4;

    return group < 4 ? 4 : group > WALK_MAX_GROUP ? WALK_MAX_GROUP : (uint32_t)group;
}

static int walk_prepare(struct walk *walk, const struct graph_walk_terms *terms)
{
    const struct graph_view *view = terms->view;
    struct graph_scratch *scratch = terms->scratch;
    size_t ef = terms->ef < view->count ? terms->ef : view->count;

    memset(walk, 0, sizeof *walk);
    walk->view = view;
    walk->scratch = scratch;
    walk->filter = walk_needed_filter(terms->filter, view->count);
    walk->query = terms->query;
    walk->ef = ef;
    walk->wide = ef > WALK_WIDE;
    walk->bound = GRAPH_KEY_NONE;
    walk->tie_limit = terms->tie_limit != 0 ? terms->tie_limit : SIZE_MAX;
    walk->level = terms->level;
    walk->tie_mask = terms->tie_mask;
    walk->verifies = graph_view_verifies(view);
    walk->prefetch_bytes =
        view->vectors.stride < GRAPH_PREFETCH_BYTES ? view->vectors.stride : GRAPH_PREFETCH_BYTES;
    walk->group = walk_group_of(walk->prefetch_bytes);
    scratch->pending.count = 0;
    scratch->pool.count = 0;
    if (graph_scratch_reserve_marks(scratch, view->count) != OMENDB_OK ||
        graph_scratch_reserve_hop(scratch, view->links_per_row) != OMENDB_OK ||
        graph_keys_reserve(scratch->memory, &scratch->pool, ef + 1) != OMENDB_OK) {
        return OMENDB_NOMEM;
    }
    walk->pool = scratch->pool.keys;
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_walk(const struct graph_walk_terms *terms, uint64_t start)
{
    struct walk walk;
    int code = walk_prepare(&walk, terms);

    if (code != OMENDB_OK || walk.ef == 0 || start == GRAPH_KEY_NONE) {
        return code;
    }
    (void)graph_scratch_mark(walk.scratch, graph_key_row(start, walk.tie_mask));
    code = walk_offer(&walk, start);
    if (code == OMENDB_OK) {
        code = walk_run(&walk);
    }
    graph_scratch_clear_marks(walk.scratch);
    if (walk.wide) {
        walk_heap_sort(walk.pool, walk.size);
    }
    for (size_t i = 0; i < walk.size; i++) {
        walk.pool[i] &= ~GRAPH_KEY_EXPANDED;
    }
    walk.scratch->pool.count = walk.size;
    if (terms->counters != NULL) {
        terms->counters->expanded += walk.counters.expanded;
        terms->counters->distances += walk.counters.distances;
    }
    return code;
}

/* The neighbour at the level nearest to the query, if it is nearer than *reached; *moved says so.
 */
static int walk_step_down(struct walk *walk, uint64_t *reached, int *moved)
{
    const struct graph_view *view = walk->view;
    struct graph_hop *hop = &walk->scratch->hops[0];
    const uint32_t row = graph_key_row(*reached, walk->tie_mask);
    uint32_t *slots, length;
    int code = graph_view_slots(view, row, walk->level, &slots, &length);

    hop->count = 0;
    for (uint32_t i = 0; i < length && code == OMENDB_OK; i++) {
        const uint32_t neighbour = graph_slot_load(&slots[i]);
        if (neighbour < view->count && neighbour != row) {
            if (walk->verifies) {
                code = graph_view_touch_vector(view, neighbour);
            }
            hop->rows[hop->count] = neighbour;
            hop->vectors[hop->count++] = rows_at(&view->vectors, neighbour);
        }
    }
    *moved = 0;
    if (code != OMENDB_OK) {
        return code;
    }
    walk_prefetch_vectors(walk, hop, 0, walk->group);
    walk_compute(walk, hop);
    walk->counters.expanded++;
    for (uint32_t i = 0; i < hop->count; i++) {
        const uint64_t key = graph_key(walk->scratch->distances[i], hop->rows[i] ^ walk->tie_mask);
        if (key < *reached) {
            *reached = key;
            *moved = 1;
        }
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_walk_descend(const struct graph_walk_terms *terms, uint64_t *reached)
{
    const struct graph_view *view = terms->view;
    const uint32_t entry = view->entry_row;
    uint32_t level = view->entry_level < GRAPH_MAX_LEVEL ? view->entry_level : GRAPH_MAX_LEVEL;
    struct walk walk;
    int code;

    *reached = GRAPH_KEY_NONE;
    if (entry >= view->count) {
        return OMENDB_OK;
    }
    code = walk_prepare(&walk, terms);
    if (code == OMENDB_OK && walk.verifies) {
        code = graph_view_touch_vector(view, entry);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    *reached =
        graph_key(view->kernel->pair(terms->query, rows_at(&view->vectors, entry), view->dim),
                  entry ^ terms->tie_mask);
    walk.counters.distances++;
    for (; level > terms->level && code == OMENDB_OK; level--) {
        int moved = 1;
        walk.level = level;
        while (moved && code == OMENDB_OK) {
            code = walk_step_down(&walk, reached, &moved);
        }
    }
    if (terms->counters != NULL) {
        terms->counters->expanded += walk.counters.expanded;
        terms->counters->distances += walk.counters.distances;
    }
    return code;
}

OMENDB_INTERNAL int graph_search(const struct graph_view *view, struct graph_scratch *scratch,
                                 const void *query, size_t ef, const struct graph_filter *filter,
                                 struct graph_hit *hits, size_t *count,
                                 struct graph_counters *counters)
{
    const struct graph_walk_terms terms = {.view = view,
                                           .scratch = scratch,
                                           .query = query,
                                           .ef = ef,
                                           .filter = filter,
                                           .counters = counters};
    uint64_t start;
    int code = graph_walk_descend(&terms, &start);

    *count = 0;
    scratch->pool.count = 0;
    if (code == OMENDB_OK) {
        code = graph_walk(&terms, start);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    for (size_t i = 0; i < scratch->pool.count; i++) {
        hits[i].distance = graph_key_distance(scratch->pool.keys[i]);
        hits[i].row = graph_key_row(scratch->pool.keys[i], 0);
    }
    *count = scratch->pool.count;
    return OMENDB_OK;
}

/* Scans */

#define SCAN_BATCH 32

struct scan {
    uint64_t *keys;
    size_t count;
    size_t capacity;
    int wide;
    uint64_t distances;
    uint32_t batch_count;
    uint32_t rows[SCAN_BATCH];
    const void *vectors[SCAN_BATCH];
};

static void scan_keep(struct scan *scan, uint64_t key)
{
    if (key >= walk_bound(scan->keys, scan->count, scan->capacity, scan->wide)) {
        return;
    }
    if (scan->wide) {
        walk_put_wide(scan->keys, &scan->count, scan->capacity, key);
    } else {
        walk_put(scan->keys, &scan->count, scan->capacity,
                 walk_position(scan->keys, scan->count, key), key);
    }
}

static void scan_finish_batch(struct scan *scan, const struct graph_view *view, const void *query)
{
    float distances[SCAN_BATCH];

    view->kernel->many(query, scan->vectors, scan->batch_count, view->dim, distances);
    for (uint32_t i = 0; i < scan->batch_count; i++) {
        scan_keep(scan, graph_key(distances[i], scan->rows[i]));
    }
    scan->distances += scan->batch_count;
    scan->batch_count = 0;
}

static int scan_rows(struct scan *scan, const struct graph_view *view, const void *query,
                     uint32_t first, uint32_t last, const struct graph_filter *filter)
{
    const int verifies = graph_view_verifies(view);

    for (uint32_t row = first; row < last; row++) {
        if (filter != NULL && !walk_returnable(filter, row)) {
            continue;
        }
        if (verifies) {
            const int code = graph_view_touch_vector(view, row);
            if (code != OMENDB_OK) {
                return code;
            }
        }
        scan->rows[scan->batch_count] = row;
        scan->vectors[scan->batch_count++] = rows_at(&view->vectors, row);
        if (scan->batch_count == SCAN_BATCH) {
            scan_finish_batch(scan, view, query);
        }
    }
    scan_finish_batch(scan, view, query);
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_scan(const struct graph_view *view, struct graph_scratch *scratch,
                               const void *query, uint32_t first, uint32_t last, size_t k,
                               const struct graph_filter *filter, struct graph_hit *hits,
                               size_t *count, struct graph_counters *counters)
{
    struct scan scan = {.capacity = k, .wide = k > WALK_WIDE};
    int code;

    last = last < view->count ? last : view->count;
    if (k == 0 || first >= last) {
        return OMENDB_OK;
    }
    if (scan.capacity > *count + (last - first)) {
        scan.capacity = *count + (last - first);
    }
    if (graph_keys_reserve(scratch->memory, &scratch->pool, scan.capacity + 1) != OMENDB_OK) {
        return OMENDB_NOMEM;
    }
    scan.keys = scratch->pool.keys;
    for (size_t i = 0; i < *count; i++) {
        scan_keep(&scan, graph_key(hits[i].distance, hits[i].row));
    }
    code = scan_rows(&scan, view, query, first, last, walk_needed_filter(filter, view->count));
    if (code != OMENDB_OK) {
        return code;
    }
    if (scan.wide) {
        walk_heap_sort(scan.keys, scan.count);
    }
    for (size_t i = 0; i < scan.count; i++) {
        hits[i].distance = graph_key_distance(scan.keys[i]);
        hits[i].row = graph_key_row(scan.keys[i], 0);
    }
    *count = scan.count;
    if (counters != NULL) {
        counters->distances += scan.distances;
    }
    return OMENDB_OK;
}

#undef WALK_WIDE
#undef WALK_GROUP_BYTES
#undef WALK_MAX_GROUP
#undef SCAN_BATCH
