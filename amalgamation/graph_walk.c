/* graph_walk.c: the walk to the nearest rows (algorithms 2 and 5 of the HNSW paper), for searching
 * and building.
 *
 * What makes it fast:
 * - One sorted array of the best `ef` keys is both the result and the queue of rows to expand; a
 * position is found by comparing quarters without branches. Two binary heaps, as in the paper, cost
 * more up to some thousand entries; from WALK_WIDE on ("wide") they are used, because a move then
 * costs more than a heap's logarithm.
 * - The walk is a pipeline over rows, not over lists. Unvisited neighbours join a queue; when fewer
 * than WALK_AHEAD wait in it, the next row is expanded, whose list was fetched when the one before
 * was. At each step the vectors of four rows are fetched, and the distances of the four at the
 * head, whose vectors were fetched WALK_FETCH rows ago, computed. So memory always has work, and no
 * step waits for the end of a list. The rows to expand are thus chosen before the newest distances
 * are in, which expands a few rows more (1 % more distances, and a little more recall).
 * - Visited rows are one bit each, which for a million rows stays in the second-level cache; the
 * rows marked are remembered, in the same array that is the queue, and cleared afterwards.
 *
 * Measured on Zen 3, one million vectors of 128 bytes, recall 0.95: 1.4 times the queries a second
 * of hops computed one after the other with the next one's vectors fetched before; half of the time
 * is what reading the same vectors and lists at random takes. Rejected, all measured there: bytes
 * for marks (2 % slower), a small exact set of visited rows that fits the
 * first-level cache (5 % slower), fetching within the kernel between its steps (even), groups of
 * eight (3 % slower), fetching to outer caches only (even), lists of the next two candidates
 * fetched on suspicion (6 % slower than choosing one row earlier).
 *
 * Rows that a filter hides are walked through by a heap of their own beside the pool, bounded by
 * the worst returnable row, or by what the stretch allows beyond the k-th best one, so that the
 * walk with a filter is the same walk and costs what the hidden rows cost. The filter is asked only
 * of rows within the bound. Where few rows pass, or those that do are far away, that cost has no
 * bound of its own: whoever asks sets one (graph_effort.look).
 *
 * Every loop ends on any input: a row is gathered at most once a walk, and the greedy descent goes
 * to smaller keys. */
#include "graph_internal.h"

#include <math.h>

#define WALK_WIDE         2048 /* entries of the pool */
#define WALK_AHEAD        16   /* rows in the queue, below which a row is expanded */
#define WALK_GROUP        4    /* distances a call of the kernel */
#define WALK_FETCH        16 /* rows fetched before they are computed, and at most so many bytes, if */
#define WALK_BYTES        4096 /* those are a group at least */
#define WALK_FIT          64 /* rows that the filter is asked of between two looks at how many pass */
#define WALK_AWAY_STRETCH 1.5f /* what a stretch adds to 1 grows so much; see graph_effort */
#define WALK_RING         128  /* addresses of fetched vectors; moved to the start when full */

/* Scratch */

OMENDB_INTERNAL struct graph_scratch *graph_scratch_create(struct memory *memory)
{
    struct graph_scratch *scratch = memory_zalloc(memory, sizeof *scratch);

    if (scratch != NULL) {
        scratch->memory = memory;
    }
    return scratch;
}

OMENDB_INTERNAL size_t graph_scratch_keys_bytes(const struct graph_scratch *scratch)
{
    return (scratch->pool.capacity + scratch->pending.capacity + scratch->nearest.capacity) *
           sizeof(uint64_t);
}

OMENDB_INTERNAL void graph_scratch_drop_keys(struct graph_scratch *scratch)
{
    struct graph_keys *const all[] = {&scratch->pool, &scratch->pending, &scratch->nearest};

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        memory_free(scratch->memory, all[i]->keys, all[i]->capacity * sizeof *all[i]->keys);
        *all[i] = (struct graph_keys){0};
    }
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
    graph_scratch_drop_keys(scratch);
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

/* An eighth of the rows is remembered; a walk that marks more clears everything. */
OMENDB_INTERNAL int graph_scratch_reserve_marks(struct graph_scratch *scratch, uint32_t rows)
{
    const size_t needed = (size_t)rows / 32 + 1;
    size_t words = scratch->mark_words + scratch->mark_words / 2;
    size_t capacity;
    uint32_t *marks, *touched;

    if (needed <= scratch->mark_words) {
        return OMENDB_OK;
    }
    words = words < needed ? needed : words;
    capacity = words * 4 + GRAPH_TOUCHED_LEAST;
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
    scratch->touched_lost = 0;
    return OMENDB_OK;
}

OMENDB_INTERNAL void graph_scratch_clear_marks(struct graph_scratch *scratch)
{
    const uint32_t *touched = scratch->touched;
    const size_t count = scratch->touched_count;
    uint32_t *marks = scratch->marks;

    if (scratch->touched_lost) {
        memset(marks, 0, scratch->mark_words * sizeof *marks);
    } else {
        for (size_t i = 0; i < count; i++) {
            marks[touched[i] / 32] = 0;
        }
    }
    scratch->touched_count = 0;
    scratch->touched_lost = 0;
}

/* Keys: a sorted array, and a heap. `flip` is 0 for the smallest on top, ~0 for the greatest. */

/* How many of the sorted keys are smaller. By quarters: three loads at a time wait for no other,
 * and no branch depends on the keys. */
static inline size_t walk_position(const uint64_t *keys, size_t count, uint64_t key)
{
    const uint64_t *base = keys;
    size_t smaller = 0;

    while (count > 3) {
        const size_t quarter = count / 4;
        base += quarter * ((size_t)(base[quarter - 1] < key) + (base[2 * quarter - 1] < key) +
                           (base[3 * quarter - 1] < key));
        count -= 3 * quarter;
    }
    for (size_t i = 0; i < count; i++) {
        smaller += base[i] < key;
    }
    return (size_t)(base - keys) + smaller;
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

/* The queue is scratch->touched[head .. touched_count). */
struct walk {
    const struct graph_view *view;
    struct graph_scratch *scratch;
    const struct graph_filter *filter; /* NULL when it hides nothing */
    const void *query;
    uint64_t *pool; /* scratch->pool.keys, of which `size` of at most `ef` are used */
    size_t size;
    size_t ef;
    size_t next;    /* not wide: all before are expanded */
    uint64_t bound; /* nothing beyond it is kept or expanded; it never rises */
    float limit;    /* distance of the bound; NaN compares with it so that the bound decides */
    float stretch;
    float origin;
    size_t k;            /* 0: no stretch */
    size_t wanted;       /* of the pool, what is kept though it is beyond the bound */
    const uint8_t *base; /* of vectors that are one chunk; else NULL */
    size_t stride;
    size_t prefetch_bytes;
    size_t fetch; /* rows fetched before they are computed */
    size_t tie_limit;
    size_t head;
    uint32_t level;
    uint32_t tie_mask;
    int wide;
    int verifies;
    uint64_t look_at;               /* distances */
    uint64_t asked, passed;         /* of and by the filter */
    uint64_t fit_asked, fit_passed; /* since the pool had least_ef rows */
    int fits; /* ef and stretch follow from what the filter lets through; the most of both: */
    double share, share_doubt;
    size_t least_ef, most_ef;
    float most_stretch;
    struct graph_counters counters;
};

static int walk_returnable(const struct graph_filter *filter, uint32_t row)
{
    return row < filter->row_limit && row != filter->excluded_row &&
           (filter->chosen == NULL || (filter->chosen[row / 64] >> (row % 64) & 1) != 0) &&
           (filter->visible == NULL || filter->visible(filter->context, row) != 0);
}

static const struct graph_filter *walk_needed_filter(const struct graph_filter *filter,
                                                     uint32_t count)
{
    if (filter == NULL || (filter->row_limit >= count && filter->excluded_row >= count &&
                           filter->visible == NULL && filter->chosen == NULL)) {
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

static void walk_set_bound(struct walk *walk, uint64_t bound)
{
    if (bound < walk->bound) {
        walk->bound = bound;
        walk->limit = graph_key_distance(bound);
    }
}

/* After a change of the k-th best returnable key. No bound follows from a NaN. */
static void walk_tighten(struct walk *walk, uint64_t kth)
{
    const float distance = graph_key_distance(kth);
    const float farthest = distance + (walk->stretch - 1.0f) * fabsf(distance - walk->origin);

    if (farthest >= distance) {
        walk_set_bound(walk, graph_key(farthest, GRAPH_ROW_MASK) | GRAPH_KEY_EXPANDED);
    }
}

static int walk_offer_wide(struct walk *walk, uint64_t key)
{
    struct graph_keys *nearest = &walk->scratch->nearest;

    walk_put_wide(walk->pool, &walk->size, walk->ef, key);
    if (walk->size == walk->ef) {
        walk_set_bound(walk, walk->pool[0]);
    }
    if (walk->k != 0 && key < walk_bound(nearest->keys, nearest->count, walk->k, 1)) {
        walk_put_wide(nearest->keys, &nearest->count, walk->k, key);
        if (nearest->count == walk->k) {
            walk_tighten(walk, nearest->keys[0]);
        }
    }
    return walk_push_pending(walk, key);
}

/* Whether fewer rows near the query may be returned than chance explains: by two deviations of the
 * share there and of that of all. */
static int walk_is_away(const struct walk *walk, double near)
{
    const double share = walk->share, less = share - near;
    return less > 0.0 && less * less > 4.0 * share * (1.0 - share) *
                                           (1.0 / (double)walk->fit_asked + walk->share_doubt);
}

/* See graph_effort. */
static void walk_fit_effort(struct walk *walk)
{
    const double near = (double)walk->fit_passed / (double)walk->fit_asked;
    const double part = sqrt(near);

    if (walk_is_away(walk, near)) {
        walk->stretch = 1.0f + (walk->most_stretch - 1.0f) * WALK_AWAY_STRETCH;
        walk->ef = GRAPH_AWAY_EF(walk->most_ef);
    } else {
        walk->stretch = 1.0f + (walk->most_stretch - 1.0f) * (float)sqrt(part);
        walk->ef = walk->least_ef + (size_t)((double)(walk->most_ef - walk->least_ef) * part);
    }
    if (walk->size >= walk->ef) {
        walk->size = walk->ef;
        walk_set_bound(walk, walk->pool[walk->size - 1]);
    }
}

/* Whether the row may be returned, and not only walked through. */
static int walk_passes(struct walk *walk, uint64_t key)
{
    const int passes = walk_returnable(walk->filter, graph_key_row(key, walk->tie_mask));

    walk->asked++;
    walk->passed += (unsigned)passes;
    if (walk->fits && walk->size >= walk->least_ef) {
        walk->fit_asked++;
        walk->fit_passed += (unsigned)passes;
        if (walk->fit_asked % WALK_FIT == 0) {
            walk_fit_effort(walk);
        }
    }
    return passes;
}

/* A row whose distance is known; its key is below the bound. */
static int walk_offer(struct walk *walk, uint64_t key)
{
    size_t at;

    if (walk->filter != NULL) {
        if (!walk_passes(walk, key)) {
            return walk_push_pending(walk, key);
        }
        if (key >= walk->bound) {
            return OMENDB_OK;
        }
    }
    if (walk->wide) {
        return walk_offer_wide(walk, key);
    }
    while (walk->size > walk->wanted && walk->pool[walk->size - 1] > walk->bound) {
        walk->size--;
    }
    at = walk_position(walk->pool, walk->size, key);
    if (at >= walk->tie_limit && walk->pool[at - walk->tie_limit] >> 32 == key >> 32) {
        return OMENDB_OK;
    }
    walk_put(walk->pool, &walk->size, walk->ef, at, key);
    walk->next = at < walk->next ? at : walk->next;
    if (walk->size == walk->ef) {
        walk_set_bound(walk, walk->pool[walk->size - 1]);
    }
    if (at < walk->k && walk->size >= walk->k) {
        walk_tighten(walk, walk->pool[walk->k - 1]);
    }
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
    if (key == GRAPH_KEY_NONE || key > walk->bound) {
        return GRAPH_NO_ROW;
    }
    walk->pool[walk->next++] |= GRAPH_KEY_EXPANDED;
    return graph_key_row(key, walk->tie_mask);
}

static inline const uint8_t *walk_vector(const struct walk *walk, uint32_t row)
{
    return walk->base != NULL ? walk->base + row * walk->stride
                              : rows_at(&walk->view->vectors, row);
}

/* The two lines of most codes and lists without a loop. */
static inline void walk_prefetch_lines(const uint8_t *from, size_t bytes)
{
    prefetch_line(from);
    if (bytes > OMENDB_CACHE_LINE) {
        prefetch_line(from + OMENDB_CACHE_LINE);
        for (size_t i = 2 * OMENDB_CACHE_LINE; i < bytes; i += OMENDB_CACHE_LINE) {
            prefetch_line(from + i);
        }
    }
}

static void walk_prefetch_links(const struct walk *walk, uint32_t row)
{
    if (walk->level == 0) {
        walk_prefetch_lines(rows_at(&walk->view->links, row),
                            walk->view->links_per_row * sizeof(uint32_t));
    }
}

/* Appends the neighbour in the slot if it is not marked. A number out of bounds, which only a
 * damaged file or a list ahead of the view's count has, is taken for the row itself: marked. */
static inline uint32_t walk_keep_fresh(const uint32_t *marks, uint32_t count, uint32_t row,
                                       const uint32_t *slot, uint32_t *rows, uint32_t found)
{
    uint32_t neighbour = graph_slot_load(slot);

    neighbour = neighbour < count ? neighbour : row;
    rows[found] = neighbour;
    return found + graph_is_fresh(marks, neighbour);
}

/* Stores in `rows`, which has `length` places, the neighbours that were not visited, and marks
 * them; returns how many. Marks are only read at first: a load that follows stores to places that
 * are just being computed waits for them. The second pass also drops what a list has twice, which
 * one that is being changed may have for a moment. */
static inline uint32_t walk_gather_rows(uint32_t *marks, uint32_t count, uint32_t row,
                                        const uint32_t *slots, uint32_t length, uint32_t *rows)
{
    uint32_t found = 0, fresh = 0, i = 0;

    for (; i + 4 <= length; i += 4) {
        found = walk_keep_fresh(marks, count, row, &slots[i], rows, found);
        found = walk_keep_fresh(marks, count, row, &slots[i + 1], rows, found);
        found = walk_keep_fresh(marks, count, row, &slots[i + 2], rows, found);
        found = walk_keep_fresh(marks, count, row, &slots[i + 3], rows, found);
    }
    for (; i < length; i++) {
        found = walk_keep_fresh(marks, count, row, &slots[i], rows, found);
    }
    for (i = 0; i < found; i++) {
        rows[fresh] = rows[i];
        fresh += graph_mark(marks, rows[i]);
    }
    return fresh;
}

/* The rows of which the distance is known are forgotten to make room. */
static void walk_shift_queue(struct walk *walk)
{
    struct graph_scratch *scratch = walk->scratch;

    scratch->touched_count -= walk->head;
    memmove(scratch->touched, scratch->touched + walk->head,
            scratch->touched_count * sizeof *scratch->touched);
    scratch->touched_lost = 1;
    walk->head = 0;
}

/* The neighbours of a row join the queue. */
static int walk_expand(struct walk *walk, uint32_t row)
{
    const struct graph_view *view = walk->view;
    struct graph_scratch *scratch = walk->scratch;
    uint32_t *slots, length;
    size_t before;
    int code = OMENDB_OK;

    if (!walk->verifies && walk->level == 0) {
        slots = (uint32_t *)(void *)rows_at(&view->links, row);
        length = view->links_per_row;
    } else {
        code = graph_view_slots(view, row, walk->level, &slots, &length);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    if (scratch->touched_count + length > scratch->touched_capacity) {
        walk_shift_queue(walk);
    }
    before = scratch->touched_count;
    scratch->touched_count += walk_gather_rows(scratch->marks, view->count, row, slots, length,
                                               scratch->touched + before);
    walk->counters.expanded++;
    for (size_t i = before; walk->verifies && code == OMENDB_OK && i < scratch->touched_count;
         i++) {
        code = graph_view_touch_vector(view, scratch->touched[i]);
    }
    return code;
}

/* Expands rows until the queue is long enough or none is left. *waiting: the row to expand next,
 * chosen when the one before was expanded, so that its list is on its way since then. */
static inline int walk_fill_queue(struct walk *walk, uint32_t *waiting)
{
    const struct graph_scratch *scratch = walk->scratch;
    int code = OMENDB_OK;

    while (scratch->touched_count - walk->head < WALK_AHEAD && code == OMENDB_OK) {
        uint32_t row = *waiting;
        if (row == GRAPH_NO_ROW) {
            row = walk_take(walk);
            if (row == GRAPH_NO_ROW) {
                break;
            }
        }
        *waiting = walk_take(walk);
        if (*waiting != GRAPH_NO_ROW) {
            walk_prefetch_links(walk, *waiting);
        }
        code = walk_expand(walk, row);
    }
    return code;
}

/* Addresses of vectors on their way: of the rows at the head of the queue, in order. */
struct walk_ring {
    const void *vectors[WALK_RING];
    size_t first;
    size_t end;
};

/* Fetches the vectors of rows in the queue up to walk->fetch and a group from its head. */
static inline void walk_fetch(struct walk *walk, struct walk_ring *ring, size_t queued)
{
    const size_t wanted = queued < walk->fetch + WALK_GROUP ? queued : walk->fetch + WALK_GROUP;
    size_t ready = ring->end - ring->first;

    if (ring->first + wanted > WALK_RING) {
        memmove(ring->vectors, ring->vectors + ring->first, ready * sizeof *ring->vectors);
        ring->first = 0;
        ring->end = ready;
    }
    for (; ready < wanted; ready++) {
        const uint8_t *vector = walk_vector(walk, walk->scratch->touched[walk->head + ready]);
        walk_prefetch_lines(vector, walk->prefetch_bytes);
        if (walk->filter != NULL && walk->filter->prefetch != NULL) {
            walk->filter->prefetch(walk->filter->context,
                                   walk->scratch->touched[walk->head + ready]);
        }
        ring->vectors[ring->end++] = vector;
    }
}

/* A NaN is offered: the order of the keys has a place for it. */
static inline int walk_offer_group(struct walk *walk, const uint32_t *rows, const float *distances,
                                   size_t count)
{
    int code = OMENDB_OK;

    for (size_t i = 0; i < count && code == OMENDB_OK; i++) {
        if (!(distances[i] > walk->limit)) {
            const uint64_t key = graph_key(distances[i], rows[i] ^ walk->tie_mask);
            if (key < walk->bound) {
                code = walk_offer(walk, key);
            }
        }
    }
    return code;
}

static int walk_look(struct walk *walk, const struct graph_walk_terms *terms)
{
    const struct graph_progress progress = {walk->counters.distances, walk->asked, walk->passed};

    walk->look_at = terms->look(terms->look_context, &progress);
    return walk->look_at > walk->counters.distances ? OMENDB_OK : OMENDB_DONE;
}

static int walk_run(struct walk *walk, const struct graph_walk_terms *terms)
{
    struct graph_scratch *scratch = walk->scratch;
    struct walk_ring ring;
    uint32_t waiting = GRAPH_NO_ROW;
    int code = OMENDB_OK;

    ring.first = ring.end = 0;
    while (code == OMENDB_OK) {
        float distances[WALK_GROUP];
        size_t queued, count;
        code = walk_fill_queue(walk, &waiting);
        queued = scratch->touched_count - walk->head;
        if (code != OMENDB_OK || queued == 0) {
            break;
        }
        walk_fetch(walk, &ring, queued);
        count = queued < WALK_GROUP ? queued : WALK_GROUP;
        walk->view->kernel->many(walk->query, ring.vectors + ring.first, count, walk->view->dim,
                                 distances);
        walk->counters.distances += count;
        code = walk_offer_group(walk, scratch->touched + walk->head, distances, count);
        walk->head += count;
        ring.first += count;
        if (OMENDB_UNLIKELY(walk->counters.distances >= walk->look_at) && code == OMENDB_OK) {
            code = walk_look(walk, terms);
        }
    }
    return code;
}

static size_t walk_fetch_of(size_t bytes)
{
    const size_t rows = WALK_BYTES / (bytes + 1) / WALK_GROUP * WALK_GROUP;

    return rows < WALK_GROUP ? WALK_GROUP : rows > WALK_FETCH ? WALK_FETCH : rows;
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
    walk->limit = INFINITY;
    walk->stride = view->vectors.stride;
    walk->base = view->vectors.shift >= 31 ? view->vectors.chunks[0] : NULL;
    walk->tie_limit = terms->tie_limit != 0 ? terms->tie_limit : SIZE_MAX;
    walk->wanted = terms->wanted != 0 ? terms->wanted : SIZE_MAX;
    walk->level = terms->level;
    walk->tie_mask = terms->tie_mask;
    walk->verifies = graph_view_verifies(view);
    walk->prefetch_bytes =
        view->vectors.stride < PREFETCH_MAX_BYTES ? view->vectors.stride : PREFETCH_MAX_BYTES;
    walk->fetch = walk_fetch_of(walk->prefetch_bytes);
    walk->fits = terms->fits && walk->filter != NULL && !walk->wide;
    walk->least_ef = terms->k < ef ? terms->k : ef;
    walk->most_ef = ef;
    walk->share = terms->share;
    walk->share_doubt = terms->share_sample == 0 ? 0.0 : 1.0 / (double)terms->share_sample;
    if (walk->fits && walk->share > 0.0) {
        ef = GRAPH_AWAY_EF(ef);
        walk->ef = ef;
    }
    walk->most_stretch = terms->stretch;
    walk->look_at = terms->look != NULL ? terms->look_at : UINT64_MAX;
    if (terms->stretch > 0.0f) {
        walk->k = terms->k < 1 ? 1 : terms->k < ef ? terms->k : ef;
        walk->stretch = terms->stretch;
        walk->origin = terms->origin;
    }
    scratch->pending.count = 0;
    scratch->nearest.count = 0;
    scratch->pool.count = 0;
    if (graph_scratch_reserve_marks(scratch, view->count) != OMENDB_OK ||
        graph_scratch_reserve_hop(scratch, view->links_per_row) != OMENDB_OK ||
        graph_keys_reserve(scratch->memory, &scratch->pool, ef + 1) != OMENDB_OK ||
        (walk->wide &&
         graph_keys_reserve(scratch->memory, &scratch->nearest, walk->k) != OMENDB_OK)) {
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
    walk.head = walk.scratch->touched_count;
    code = walk_offer(&walk, start);
    if (code == OMENDB_OK) {
        code = walk_run(&walk, terms);
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

/* graph_view_slots of a level above the base without the look at the row's own level, which only a
 * damaged file makes necessary: then it is some other row's list. */
static int walk_upper_slots(const struct walk *walk, uint32_t row, uint32_t **slots,
                            uint32_t *length)
{
    const struct graph_view *view = walk->view;
    uint64_t block;
    uint32_t first;

    if (walk->verifies) {
        return graph_view_slots(view, row, walk->level, slots, length);
    }
    memcpy(&first, rows_at(&view->upper_index, row), sizeof first);
    block = (uint64_t)first + walk->level - 1;
    *length = 0;
    if (block < view->upper_count) {
        *slots = (uint32_t *)(void *)rows_at(&view->upper_links, (uint32_t)block);
        *length = view->M;
    }
    return OMENDB_OK;
}

/* The neighbour at the level nearest to the query, if it is nearer than *reached; *moved says so.
 */
static int walk_step_down(struct walk *walk, uint64_t *reached, int *moved)
{
    const struct graph_view *view = walk->view;
    uint32_t *rows = walk->scratch->hops[0].rows;
    const void **vectors = walk->scratch->hops[0].vectors;
    float *distances = walk->scratch->distances;
    const uint32_t row = graph_key_row(*reached, walk->tie_mask);
    uint32_t *slots, length, count = 0;
    int code = walk_upper_slots(walk, row, &slots, &length);

    prefetch_bytes(rows_at(&view->links, row), view->links_per_row * sizeof(uint32_t));
    for (uint32_t i = 0; i < length && code == OMENDB_OK; i++) {
        const uint32_t neighbour = graph_slot_load(&slots[i]);
        if (neighbour < view->count && neighbour != row) {
            if (walk->verifies) {
                code = graph_view_touch_vector(view, neighbour);
            }
            const uint8_t *vector = walk_vector(walk, neighbour);
            walk_prefetch_lines(vector, walk->prefetch_bytes);
            prefetch_line(rows_at(&view->upper_index, neighbour));
            vectors[count] = vector;
            rows[count++] = neighbour;
        }
    }
    *moved = 0;
    if (code != OMENDB_OK) {
        return code;
    }
    view->kernel->many(walk->query, vectors, count, view->dim, distances);
    walk->counters.distances += count;
    walk->counters.expanded++;
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t key = graph_key(distances[i], rows[i] ^ walk->tie_mask);
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
                                 const void *query, const struct graph_effort *effort,
                                 const struct graph_filter *filter, struct graph_hit *hits,
                                 size_t *count, struct graph_counters *counters)
{
    const struct graph_walk_terms terms = {.view = view,
                                           .scratch = scratch,
                                           .query = query,
                                           .ef = effort->ef,
                                           .filter = filter,
                                           .counters = counters,
                                           .k = effort->k,
                                           .wanted = effort->wanted,
                                           .stretch = effort->stretch,
                                           .origin = effort->origin,
                                           .fits = effort->fits,
                                           .share = effort->share,
                                           .share_sample = effort->share_sample,
                                           .look = effort->look,
                                           .look_context = effort->look_context,
                                           .look_at = effort->look_at};
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
#define SCAN_BYTES 256 /* of each row, unless few are chosen; the processor goes on by itself */

/* Rows that wait while their vectors come, which are in no cache of this core where a filter chose
 * them here and there, or a writer on another core has just added them. */
struct scan_batch {
    uint32_t count;
    uint32_t rows[SCAN_BATCH];
    const void *vectors[SCAN_BATCH];
};

struct scan {
    uint64_t *keys;
    size_t count;
    size_t capacity;
    float limit; /* nothing farther is kept; a NaN leaves it to the keys */
    int wide;
    uint64_t distances;
    int (*each)(void *context, uint32_t row, float distance); /* NULL: the nearest are kept */
    void *context;
    uint32_t filling; /* of the batches; the other one waits */
    struct scan_batch batches[2];
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
    if (scan->count == scan->capacity) {
        scan->limit =
            graph_key_distance(walk_bound(scan->keys, scan->count, scan->capacity, scan->wide));
    }
}

/* The batch that waits; the other one does from now on. */
static int scan_finish_batch(struct scan *scan, const struct graph_view *view, const void *query)
{
    struct scan_batch *batch = &scan->batches[1 - scan->filling];
    float distances[SCAN_BATCH];
    int code = OMENDB_OK;

    scan->filling = 1 - scan->filling;
    if (batch->count == 0) {
        return OMENDB_OK;
    }
    view->kernel->many(query, batch->vectors, batch->count, view->dim, distances);
    scan->distances += batch->count;
    for (uint32_t i = 0; i < batch->count && code == OMENDB_OK; i++) {
        if (scan->each != NULL) {
            code = scan->each(scan->context, batch->rows[i], distances[i]);
        } else if (!(distances[i] > scan->limit)) {
            scan_keep(scan, graph_key(distances[i], batch->rows[i]));
        }
    }
    batch->count = 0;
    return code;
}

/* The first chosen row from `row` on; `last` when there is none below. */
static uint32_t scan_next_chosen(const uint64_t *chosen, uint32_t row, uint32_t last)
{
    while (row < last) {
        const uint64_t word = chosen[row / 64] >> (row % 64);
        const uint32_t step = word != 0 ? graph_lowest_bit(word) : 64 - row % 64;
        if (last - row <= step) {
            return last;
        }
        row += step;
        if (word != 0) {
            return row;
        }
    }
    return last;
}

/* Whether anything but the chosen rows decides which of those below `last` may be returned. */
static int scan_asks(const struct graph_filter *filter, uint32_t last)
{
    return filter != NULL &&
           (filter->visible != NULL || filter->row_limit < last || filter->excluded_row < last);
}

/* The first row from `row` on that may be returned; `last` when there is none below. */
static inline uint32_t scan_next(const struct graph_filter *filter, int asks, uint32_t row,
                                 uint32_t last)
{
    for (;; row++) {
        if (filter != NULL && filter->chosen != NULL) {
            row = scan_next_chosen(filter->chosen, row, last);
        }
        if (!asks || row >= last || walk_returnable(filter, row)) {
            return row;
        }
    }
}

/* Rows that are scanned, and how. */
struct scan_source {
    const struct graph_view *view;
    const struct graph_filter *filter; /* NULL: all may be returned */
    uint32_t last;                     /* rows at or beyond are not looked at */
    int asks, verifies;
    size_t fetched; /* bytes of each row */
};

static void scan_add(struct scan_batch *batch, const struct scan_source *source, uint32_t row)
{
    const void *vector = rows_at(&source->view->vectors, row);

    batch->rows[batch->count] = row;
    batch->vectors[batch->count++] = vector;
    prefetch_bytes(vector, source->fetched);
}

/* From *row on as many as there is room for; *row: the next. */
static int scan_fill(struct scan_batch *batch, const struct scan_source *source, uint32_t *row)
{
    while (batch->count < SCAN_BATCH) {
        int code = OMENDB_OK;
        *row = scan_next(source->filter, source->asks, *row, source->last);
        if (*row >= source->last) {
            return OMENDB_OK;
        }
        if (source->verifies) {
            code = graph_view_touch_vector(source->view, *row);
        }
        if (code != OMENDB_OK) {
            return code;
        }
        scan_add(batch, source, (*row)++);
    }
    return OMENDB_OK;
}

/* The same where none is left out and nothing is to be verified. */
static void scan_fill_all(struct scan_batch *batch, const struct scan_source *source, uint32_t *row)
{
    const uint32_t left = source->last - *row, end = *row + (left < SCAN_BATCH ? left : SCAN_BATCH);

    while (*row < end) {
        scan_add(batch, source, (*row)++);
    }
}

static int scan_rows(struct scan *scan, const struct graph_view *view, const void *query,
                     uint32_t first, uint32_t last, const struct graph_filter *filter)
{
    const size_t bytes = filter != NULL && filter->chosen != NULL ? PREFETCH_MAX_BYTES : SCAN_BYTES;
    const size_t stride = view->vectors.stride;
    const struct scan_source source = {.view = view,
                                       .filter = filter,
                                       .last = last,
                                       .asks = scan_asks(filter, last),
                                       .verifies = graph_view_verifies(view),
                                       .fetched = stride < bytes ? stride : bytes};
    int code = OMENDB_OK;

    for (uint32_t row = first; row < last && code == OMENDB_OK;) {
        struct scan_batch *batch = &scan->batches[scan->filling];
        if (filter == NULL && !source.verifies) {
            scan_fill_all(batch, &source, &row);
        } else {
            code = scan_fill(batch, &source, &row);
        }
        if (code == OMENDB_OK) {
            code = scan_finish_batch(scan, view, query);
        }
    }
    if (code == OMENDB_OK) {
        code = scan_finish_batch(scan, view, query);
    }
    return code;
}

OMENDB_INTERNAL int graph_scan(const struct graph_view *view, struct graph_scratch *scratch,
                               const void *query, uint32_t first, uint32_t last, size_t k,
                               const struct graph_filter *filter, struct graph_hit *hits,
                               size_t *count, struct graph_counters *counters)
{
    struct scan scan = {.capacity = k, .limit = INFINITY, .wide = k > WALK_WIDE};
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

OMENDB_INTERNAL int graph_scan_each(const struct graph_view *view, const void *query,
                                    uint32_t first, uint32_t last,
                                    const struct graph_filter *filter,
                                    int (*each)(void *context, uint32_t row, float distance),
                                    void *context, struct graph_counters *counters)
{
    struct scan scan = {.each = each, .context = context};
    int code;

    last = last < view->count ? last : view->count;
    code = scan_rows(&scan, view, query, first, last, walk_needed_filter(filter, view->count));
    counters->distances += scan.distances;
    return code;
}

#undef WALK_WIDE
#undef WALK_AHEAD
#undef WALK_GROUP
#undef WALK_FETCH
#undef WALK_BYTES
#undef WALK_FIT
#undef WALK_AWAY_STRETCH
#undef WALK_RING
#undef SCAN_BATCH
#undef SCAN_BYTES
