/* graph_build.c: linking rows into the graph (algorithms 1 and 4 of the HNSW paper), and taking
 * over a finished one.
 *
 * Insertion finds the neighbours of a row at all its levels, writes its own lists, and only then
 * the links back to it, from the base upward: whoever meets the row, at whatever level, finds its
 * lists below complete. As in hnswlib a row takes M neighbours at every level and lists hold 2M at
 * the base; a full list is chosen anew by the heuristic.
 *
 * The heuristic goes through the candidates from near to far and keeps one unless a kept one is
 * nearer to it than the owner is. Distances to the kept ones are computed four at a time, most
 * rejections come within the first four. Equal distances are decided by the XOR of row numbers
 * (graph_internal.h), in the walk and in the heuristic.
 *
 * A taken-over graph (adopt) keeps levels and lists; only lists that lost a row are chosen anew,
 * from what is left of them and what the dropped rows knew. Rows that no path leads to any more are
 * then linked once again: the nearest row that is reachable gives up a slot to the lost one, which
 * takes over the link that stood there, so that nothing else is lost by it.
 *
 * Rejected: one lock for the whole insertion of a row that tops the graph (hnswlib): two such rows
 * at once merely do not see each other at a level that is new to both. Rejected: refilling a list
 * with the pruned candidates ("keepPruned"), longer hops for no recall. */
#include "graph_internal.h"

#include <assert.h>

#define BUILD_GROUP          4
#define BUILD_ADOPT_ROOM     512 /* candidates for one list */
#define BUILD_ADOPT_EXPANDED 256 /* dropped rows looked through for one list */

struct build {
    struct graph *graph;
    struct graph_view view;
    struct graph_scratch *scratch;
    uint32_t row;
    const void *vector;
};

/* The first chosen row that is nearer to the candidate than the owner of the list is, or
 * GRAPH_NO_ROW. */
static uint32_t build_cover_of(const struct graph_view *view, const struct graph_scratch *scratch,
                               uint32_t chosen, uint64_t candidate_key, uint32_t candidate,
                               const void *vector)
{
    float distances[BUILD_GROUP];

    for (uint32_t i = 0; i < chosen; i += BUILD_GROUP) {
        const uint32_t group = chosen - i < BUILD_GROUP ? chosen - i : BUILD_GROUP;
        view->kernel->many(vector, scratch->selected_vectors + i, group, view->dim, distances);
        for (uint32_t j = 0; j < group; j++) {
            const uint32_t cover = scratch->selected[i + j];
            if (graph_key(distances[j], cover ^ candidate) < candidate_key) {
                return cover;
            }
        }
    }
    return GRAPH_NO_ROW;
}

/* Picks at most `limit` of the ascending keys of row `owner` into scratch->selected, after `chosen`
 * that are there already, and returns how many there are then. Every candidate's vector was
 * verified before. rejected: NULL, or hops[1], which has room for all candidates and gets the
 * rejected ones, with scratch->covers. */
static uint32_t build_select(const struct graph_view *view, struct graph_scratch *scratch,
                             uint32_t owner, uint32_t chosen, uint32_t limit,
                             struct graph_hop *rejected)
{
    const uint64_t *keys = scratch->pool.keys;
    const size_t count = scratch->pool.count;
    const size_t bytes =
        view->vectors.stride < PREFETCH_MAX_BYTES ? view->vectors.stride : PREFETCH_MAX_BYTES;

    for (size_t i = 0; i < count && chosen < limit; i++) {
        const uint32_t candidate = graph_key_row(keys[i], owner);
        const void *vector = rows_at(&view->vectors, candidate);
        uint32_t cover;
        if (i + 2 < count) {
            prefetch_bytes(rows_at(&view->vectors, graph_key_row(keys[i + 2], owner)), bytes);
        }
        if (candidate == owner) {
            continue;
        }
        cover = build_cover_of(view, scratch, chosen, keys[i], candidate, vector);
        if (cover == GRAPH_NO_ROW) {
            scratch->selected[chosen] = candidate;
            scratch->selected_vectors[chosen++] = vector;
        } else if (rejected != NULL) {
            scratch->covers[rejected->count] = cover;
            rejected->rows[rejected->count++] = candidate;
        }
    }
    return chosen;
}

/* Ascending keys, relative to `owner`, of the rows in scratch->hops[0] into scratch->pool. */
static int build_keys_of_hop(const struct graph_view *view, struct graph_scratch *scratch,
                             uint32_t owner)
{
    struct graph_hop *hop = &scratch->hops[0];
    const void *query = rows_at(&view->vectors, owner);
    int code = graph_keys_reserve(scratch->memory, &scratch->pool, hop->count);

    for (uint32_t i = 0; i < hop->count && code == OMENDB_OK; i++) {
        code = graph_view_touch_vector(view, hop->rows[i]);
        hop->vectors[i] = rows_at(&view->vectors, hop->rows[i]);
        prefetch_bytes(hop->vectors[i], view->vectors.stride < 512 ? view->vectors.stride : 512);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    view->kernel->many(query, hop->vectors, hop->count, view->dim, scratch->distances);
    for (uint32_t i = 0; i < hop->count; i++) {
        scratch->pool.keys[i] = graph_key(scratch->distances[i], hop->rows[i] ^ owner);
    }
    scratch->pool.count = hop->count;
    graph_sort_keys(scratch->pool.keys, hop->count);
    return OMENDB_OK;
}

static void build_store_selected(const struct graph_scratch *scratch, uint32_t chosen,
                                 uint32_t *slots, uint32_t length, uint32_t owner)
{
    for (uint32_t i = 0; i < length; i++) {
        graph_slot_store(&slots[i], i < chosen ? scratch->selected[i] : owner);
    }
}

/* Under the stripe of `owner`, whose list is full: the list and `added` compete for it. *taken:
 * whether `added` won a place. */
static int build_choose_again(struct build *build, uint32_t owner, uint32_t *slots, uint32_t length,
                              uint32_t added, int *taken)
{
    struct graph_scratch *scratch = build->scratch;
    struct graph_hop *hop = &scratch->hops[0];
    uint32_t chosen, highest = added;
    int code;

    hop->count = 0;
    for (uint32_t i = 0; i < length; i++) {
        const uint32_t row = graph_slot_load(&slots[i]);
        hop->rows[hop->count++] = row;
        highest = row > highest ? row : highest;
    }
    hop->rows[hop->count++] = added;
    if (highest >= build->view.count) {
        graph_get_view(build->graph, &build->view); /* rows came after the view was taken */
    }
    code = build_keys_of_hop(&build->view, scratch, owner);
    if (code != OMENDB_OK) {
        return code;
    }
    chosen = build_select(&build->view, scratch, owner, 0, length, &scratch->hops[1]);
    build_store_selected(scratch, chosen, slots, length, owner);
    for (uint32_t i = 0; i < chosen; i++) {
        *taken |= scratch->selected[i] == added;
    }
    return OMENDB_OK;
}

static struct platform_mutex *build_stripe(struct graph *graph, uint32_t row)
{
    return &graph->stripes[(row * UINT32_C(2654435769)) >> 24 & (GRAPH_STRIPES - 1)];
}

/* A row that lost its place in a list is offered to the chosen one that covers it, where there is
 * room: the path to it then has one more step, but it is there. Without this some rows among copies
 * of one vector are lost, and lists are thinner than their hops allow; with it recall at equal
 * distances is the same, and at equal ef higher. */
static void build_hand_over(struct build *build, uint32_t added)
{
    const struct graph_scratch *scratch = build->scratch;
    const struct graph_hop *rejected = &scratch->hops[1];

    for (uint32_t i = 0; i < rejected->count; i++) {
        const uint32_t row = rejected->rows[i], cover = scratch->covers[i];
        uint32_t *slots = (uint32_t *)(void *)rows_at(&build->view.links, cover);
        struct platform_mutex *stripe = build_stripe(build->graph, cover);
        if (row == added) {
            continue;
        }
        platform_mutex_lock(stripe);
        for (uint32_t at = 0; at < build->view.links_per_row; at++) {
            const uint32_t there = graph_slot_load(&slots[at]);
            if (there == cover || there == row) {
                graph_slot_store(&slots[at], row);
                break;
            }
        }
        platform_mutex_unlock(stripe);
    }
}

/* The link from `owner` to `added`; *taken is set if it is there now. */
static int build_link_back(struct build *build, uint32_t level, uint32_t owner, uint32_t added,
                           int *taken)
{
    struct platform_mutex *stripe = build_stripe(build->graph, owner);
    uint32_t *slots, length, i;
    int code = graph_view_slots(&build->view, owner, level, &slots, &length);

    if (code != OMENDB_OK) {
        return code;
    }
    build->scratch->hops[1].count = 0;
    platform_mutex_lock(stripe);
    for (i = 0; i < length; i++) {
        const uint32_t row = graph_slot_load(&slots[i]);
        if (row == owner || row == added) {
            graph_slot_store(&slots[i], added);
            *taken = 1;
            break;
        }
    }
    if (i == length) {
        code = build_choose_again(build, owner, slots, length, added, taken);
    }
    platform_mutex_unlock(stripe);
    if (level == 0) {
        build_hand_over(build, added);
    }
    return code;
}

/* Writes the row's own lists from the top level down. */
static int build_own_lists(struct build *build, uint32_t level, uint64_t start)
{
    struct graph_walk_terms terms = {.view = &build->view,
                                     .scratch = build->scratch,
                                     .query = build->vector,
                                     .tie_mask = build->row,
                                     .ef = build->graph->config.ef_construction,
                                     .tie_limit = build->graph->config.ef_construction / 2};

    for (uint32_t above = level + 1; above > 0; above--) {
        const struct graph_keys *pool = &build->scratch->pool;
        uint32_t *slots, length, chosen;
        int code;
        terms.level = above - 1;
        code = graph_walk(&terms, start);
        if (code == OMENDB_OK) {
            code = graph_view_slots(&build->view, build->row, terms.level, &slots, &length);
        }
        if (code != OMENDB_OK) {
            return code;
        }
        if (pool->count == 0) {
            continue;
        }
        start = pool->keys[0];
        chosen = build_select(&build->view, build->scratch, build->row, 0, build->view.M, NULL);
        build_store_selected(build->scratch, chosen, slots, length, build->row);
    }
    return OMENDB_OK;
}

/* Where a list has its first free slot or `row`; the last slot when it has neither. */
static uint32_t build_slot_for(const uint32_t *slots, uint32_t length, uint32_t owner, uint32_t row)
{
    uint32_t at = 0;

    while (at < length - 1 && graph_slot_load(&slots[at]) != owner &&
           graph_slot_load(&slots[at]) != row) {
        at++;
    }
    return at;
}

/* Links `from` to `row` at the base. If that takes a slot, the link that stood there starts from
 * `row` instead, so that a path through it stays one. `row` has a free slot or is not reachable
 * itself. */
static void build_splice(struct graph *graph, const struct graph_view *view, uint32_t from,
                         uint32_t row)
{
    uint32_t *from_slots = (uint32_t *)(void *)rows_at(&view->links, from);
    uint32_t *row_slots = (uint32_t *)(void *)rows_at(&view->links, row);
    const uint32_t length = view->links_per_row;
    struct platform_mutex *stripe = build_stripe(graph, from);
    uint32_t *slot, moved;

    platform_mutex_lock(stripe);
    slot = &from_slots[build_slot_for(from_slots, length, from, row)];
    moved = graph_slot_load(slot);
    if (moved != from && moved != row) {
        graph_slot_store(&row_slots[build_slot_for(row_slots, length, row, moved)], moved);
    }
    graph_slot_store(slot, row);
    platform_mutex_unlock(stripe);
}

/* Writes the links back to the row from the base up. A damaged file under one of them does not stop
 * the others. */
static int build_links_back(struct build *build, uint32_t level)
{
    int result = OMENDB_OK;

    for (uint32_t at = 0; at <= level; at++) {
        uint32_t *slots, length, nearest = build->row;
        int taken = 0;
        int code = graph_view_slots(&build->view, build->row, at, &slots, &length);
        for (uint32_t i = 0; i < length && code == OMENDB_OK; i++) {
            const uint32_t neighbour = graph_slot_load(&slots[i]);
            if (neighbour != build->row && neighbour < build->view.count) {
                const int failed = build_link_back(build, at, neighbour, build->row, &taken);
                result = failed != OMENDB_OK ? failed : result;
                nearest = nearest == build->row ? neighbour : nearest;
            }
        }
        if (at == 0 && !taken && nearest != build->row) {
            build_splice(build->graph, &build->view, nearest, build->row);
        }
        result = code != OMENDB_OK ? code : result;
    }
    return result;
}

static int build_begin(struct build *build, struct graph *graph, struct graph_scratch *scratch,
                       uint32_t row)
{
    build->graph = graph;
    build->scratch = scratch;
    build->row = row;
    graph_get_view(graph, &build->view);
    assert(row < build->view.count);
    build->vector = rows_at(&build->view.vectors, row);
    if (graph_scratch_reserve_hop(scratch, graph->links_per_row) != OMENDB_OK) {
        return OMENDB_NOMEM;
    }
    return graph_view_touch_vector(&build->view, row);
}

OMENDB_INTERNAL int graph_insert(struct graph *graph, struct graph_scratch *scratch, uint32_t row)
{
    struct build build;
    struct graph_walk_terms terms;
    uint32_t level;
    uint64_t start;
    int code = build_begin(&build, graph, scratch, row);

    if (code != OMENDB_OK) {
        return code;
    }
    level = *rows_at(&build.view.levels, row);
    if (build.view.entry_row == GRAPH_NO_ROW) {
        if (graph_offer_entry(graph, row, level)) {
            return OMENDB_OK;
        }
        graph_get_view(graph, &build.view);
    }
    memset(&terms, 0, sizeof terms);
    terms.view = &build.view;
    terms.scratch = scratch;
    terms.query = build.vector;
    terms.tie_mask = row;
    terms.level = level < build.view.entry_level ? level : build.view.entry_level;
    terms.ef = graph->config.ef_construction;
    code = graph_walk_descend(&terms, &start);
    if (code == OMENDB_OK) {
        code = build_own_lists(&build, terms.level, start);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    code = build_links_back(&build, terms.level);
    if (level > build.view.entry_level) {
        (void)graph_offer_entry(graph, row, level);
    }
    return code;
}

/* Taking over */

OMENDB_INTERNAL int graph_adopt_begin(struct graph *graph, const struct graph_view *source,
                                      const uint32_t *old_to_new, uint32_t kept)
{
    uint8_t *levels;
    int code = OMENDB_OK;

    assert(graph->reserved == 0 && source->M == graph->config.M);
    graph->adopted = kept;
    if (kept == 0) {
        return OMENDB_OK;
    }
    levels = memory_zalloc(graph->memory, kept);
    if (levels == NULL) {
        return OMENDB_NOMEM;
    }
    for (uint32_t row = 0; row < source->count && code == OMENDB_OK; row++) {
        if (old_to_new[row] < kept) {
            uint8_t level;
            code = graph_view_touch(source, source->levels_offset, row, sizeof level);
            if (code == OMENDB_OK) {
                level = *rows_at(&source->levels, row);
                levels[old_to_new[row]] = level < GRAPH_MAX_LEVEL ? level : GRAPH_MAX_LEVEL;
            }
        }
    }
    if (code == OMENDB_OK) {
        code = graph_reserve_levels(graph, kept, levels);
    }
    memory_free(graph->memory, levels, kept);
    return code;
}

/* Adds to hops[0] the kept neighbours of `from` that were not met yet, and the dropped ones to
 * hops[1]. */
static int build_adopt_visit(const struct graph_view *source, const uint32_t *old_to_new,
                             struct graph_scratch *scratch, uint32_t from, uint32_t level)
{
    struct graph_hop *found = &scratch->hops[0], *dropped = &scratch->hops[1];
    uint32_t *slots, length;
    int code = graph_view_slots(source, from, level, &slots, &length);

    for (uint32_t i = 0; i < length && code == OMENDB_OK && found->count < BUILD_ADOPT_ROOM; i++) {
        const uint32_t neighbour = graph_slot_load(&slots[i]);
        if (neighbour >= source->count || !graph_scratch_mark(scratch, neighbour)) {
            continue;
        }
        if (old_to_new[neighbour] != GRAPH_NO_ROW) {
            found->rows[found->count++] = neighbour;
        } else if (dropped->count < BUILD_ADOPT_EXPANDED) {
            dropped->rows[dropped->count++] = neighbour;
        }
    }
    return code;
}

/* Collects in hops[0] kept rows, each once: first the row's neighbours (*kept of them) and then,
 * through dropped ones, theirs. */
static int build_adopt_collect(const struct graph_view *source, const uint32_t *old_to_new,
                               struct graph_scratch *scratch, uint32_t row, uint32_t level,
                               uint32_t *kept)
{
    const struct graph_hop *found = &scratch->hops[0], *dropped = &scratch->hops[1];
    int code;

    scratch->hops[0].count = scratch->hops[1].count = 0;
    (void)graph_scratch_mark(scratch, row);
    code = build_adopt_visit(source, old_to_new, scratch, row, level);
    *kept = found->count;
    for (uint32_t i = 0; i < dropped->count && code == OMENDB_OK; i++) {
        code = build_adopt_visit(source, old_to_new, scratch, dropped->rows[i], level);
    }
    graph_scratch_clear_marks(scratch);
    return code;
}

/* Leaves in scratch->selected what row `row` of the source is to be linked to: all that is left of
 * its list, which is a good choice still, and into the free slots what the heuristic takes of the
 * others. Choosing everything anew costs the most navigable links: 0.02 of recall at 30 % dropped.
 * Considering only the nearest of the others costs 0.007. */
static int build_adopt_select(const struct graph_view *source, struct graph_scratch *scratch,
                              uint32_t row, uint32_t kept, uint32_t length, uint32_t *chosen)
{
    struct graph_hop *found = &scratch->hops[0];
    int code = OMENDB_OK;

    kept = kept < length ? kept : length;
    for (uint32_t i = 0; i < kept && code == OMENDB_OK; i++) {
        scratch->selected[i] = found->rows[i];
        scratch->selected_vectors[i] = rows_at(&source->vectors, found->rows[i]);
        code = graph_view_touch_vector(source, found->rows[i]);
    }
    *chosen = kept;
    if (code != OMENDB_OK || found->count == kept || kept == length) {
        return code;
    }
    found->count -= kept;
    memmove(found->rows, found->rows + kept, found->count * sizeof *found->rows);
    code = build_keys_of_hop(source, scratch, row);
    if (code == OMENDB_OK) {
        *chosen = build_select(source, scratch, row, kept, length, NULL);
    }
    return code;
}

/* Writes the list of source row `row` as that of its new number. */
static int build_adopt_list(const struct graph_view *view, const struct graph_view *source,
                            const uint32_t *old_to_new, struct graph_scratch *scratch, uint32_t row,
                            uint32_t level)
{
    uint32_t *slots, length, kept, chosen;
    int code = build_adopt_collect(source, old_to_new, scratch, row, level, &kept);

    if (code == OMENDB_OK) {
        code = graph_view_slots(view, old_to_new[row], level, &slots, &length);
    }
    if (code == OMENDB_OK) {
        code = build_adopt_select(source, scratch, row, kept, length, &chosen);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    for (uint32_t i = 0; i < chosen; i++) {
        scratch->selected[i] = old_to_new[scratch->selected[i]];
    }
    build_store_selected(scratch, chosen, slots, length, old_to_new[row]);
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_adopt_rows(struct graph *graph, const struct graph_view *source,
                                     const uint32_t *old_to_new, struct graph_scratch *scratch,
                                     uint32_t first, uint32_t last)
{
    struct graph_view view;
    int code = graph_scratch_reserve_marks(scratch, source->count);

    if (code == OMENDB_OK) {
        code = graph_scratch_reserve_hop(scratch, BUILD_ADOPT_ROOM);
    }
    graph_get_view(graph, &view);
    for (uint32_t row = first; row < last && code == OMENDB_OK; row++) {
        const uint32_t to = old_to_new[row];
        if (to == GRAPH_NO_ROW) {
            continue;
        }
        code = graph_view_touch_vector(source, row);
        for (uint32_t at = 0; at <= *rows_at(&view.levels, to) && code == OMENDB_OK; at++) {
            code = build_adopt_list(&view, source, old_to_new, scratch, row, at);
        }
    }
    return code;
}

/* Repairing */

struct build_reach {
    uint64_t *reached;
    uint32_t *queue;
    uint32_t found;
};

/* The nearest row to `row` that a path leads to. */
static int build_nearest_reached(struct graph *graph, struct graph_scratch *scratch,
                                 const struct graph_view *view, const struct build_reach *reach,
                                 uint32_t row, uint32_t *nearest)
{
    struct graph_walk_terms terms = {.view = view,
                                     .scratch = scratch,
                                     .tie_mask = row,
                                     .query = rows_at(&view->vectors, row),
                                     .ef = graph->config.ef_construction};
    uint64_t start;
    int code = graph_view_touch_vector(view, row);

    *nearest = view->entry_row;
    if (code == OMENDB_OK) {
        code = graph_walk_descend(&terms, &start);
    }
    if (code == OMENDB_OK) {
        code = graph_walk(&terms, start);
    }
    for (size_t i = 0; i < scratch->pool.count && code == OMENDB_OK; i++) {
        const uint32_t near = graph_key_row(scratch->pool.keys[i], row);
        if ((reach->reached[near >> 6] >> (near & 63) & 1) != 0) {
            *nearest = near;
            break;
        }
    }
    return code;
}

static int build_repair_rows(struct graph *graph, struct graph_scratch *scratch,
                             const struct graph_view *view, uint32_t indexed,
                             struct build_reach *reach)
{
    int code = graph_view_reach(view, view->entry_row, reach->reached, reach->queue, &reach->found);

    for (uint32_t row = 0; row < indexed && code == OMENDB_OK && reach->found < indexed; row++) {
        uint32_t nearest;
        if ((reach->reached[row >> 6] >> (row & 63) & 1) != 0) {
            continue;
        }
        code = build_nearest_reached(graph, scratch, view, reach, row, &nearest);
        if (code == OMENDB_OK) {
            build_splice(graph, view, nearest, row);
            code = graph_view_reach(view, row, reach->reached, reach->queue, &reach->found);
        }
    }
    return code;
}

OMENDB_INTERNAL int graph_repair_unheld(struct graph *graph, struct graph_scratch *scratch,
                                        uint32_t indexed, const struct graph_held *held)
{
    struct graph_view view;
    struct build_reach reach = {NULL, NULL, 0};
    size_t words;
    int code = OMENDB_NOMEM;

    graph_get_view(graph, &view);
    if (view.entry_row == GRAPH_NO_ROW) {
        return OMENDB_OK;
    }
    words = (size_t)view.count / 64 + 1;
    reach.reached = memory_zalloc(graph->memory, memory_multiply(words, sizeof *reach.reached));
    reach.queue = memory_array(graph->memory, view.count, sizeof *reach.queue);
    if (reach.reached != NULL && reach.queue != NULL) {
        for (uint32_t i = 0; i < held->count; i++) {
            const uint32_t row = graph_held_row(held, i);
            reach.reached[row >> 6] |= UINT64_C(1) << (row & 63);
        }
        reach.found = held->count;
        code = build_repair_rows(graph, scratch, &view, indexed, &reach);
    }
    memory_free(graph->memory, reach.queue, (size_t)view.count * sizeof *reach.queue);
    memory_free(graph->memory, reach.reached, words * sizeof *reach.reached);
    return code;
}

OMENDB_INTERNAL int graph_repair(struct graph *graph, struct graph_scratch *scratch,
                                 uint32_t indexed)
{
    const struct graph_held none = {0, 0, 0};

    return graph_repair_unheld(graph, scratch, indexed, &none);
}

OMENDB_INTERNAL void graph_cut(struct graph *graph, uint32_t rows)
{
    struct graph_view view;

    graph_get_view(graph, &view);
    for (uint32_t row = 0; row < rows; row++) {
        for (uint32_t level = 0; level <= *rows_at(&view.levels, row); level++) {
            uint32_t *slots, length;
            const int code = graph_view_slots(&view, row, level, &slots, &length);
            for (uint32_t i = 0; code == OMENDB_OK && i < length; i++) {
                if (graph_slot_load(&slots[i]) >= rows) {
                    graph_slot_store(&slots[i], row);
                }
            }
        }
    }
}

/* The first row of the highest level is the entry. */
static void build_adopt_entry(struct graph *graph)
{
    const struct rows_view levels = rows_store_view(&graph->levels);
    uint32_t entry = 0;

    for (uint32_t row = 1; row < graph->adopted; row++) {
        if (*rows_at(&levels, row) > *rows_at(&levels, entry)) {
            entry = row;
        }
    }
    (void)graph_offer_entry(graph, entry, *rows_at(&levels, entry));
}

OMENDB_INTERNAL int graph_adopt_end(struct graph *graph)
{
    struct graph_scratch *scratch;
    int code;

    if (graph->adopted == 0) {
        return OMENDB_OK;
    }
    scratch = graph_scratch_create(graph->memory);
    if (scratch == NULL) {
        return OMENDB_NOMEM;
    }
    if (atomic_load_explicit(&graph->count, memory_order_relaxed) < graph->adopted) {
        graph_set_count(graph, graph->adopted);
    }
    build_adopt_entry(graph);
    code = graph_repair(graph, scratch, graph->adopted);
    graph_scratch_destroy(scratch);
    return code;
}

#undef BUILD_GROUP
#undef BUILD_ADOPT_EXPANDED
#undef BUILD_ADOPT_ROOM
