/* graph_bulk.c: building a whole graph at once.
 *
 * The rows that have upper levels, one in M, are inserted one by one: a graph of nothing but them.
 * The base lists of all rows are then made anew, in stages that are all parallel: the nearest of
 * each row are found (graph_bulk_balls.c), and its links chosen among them and their neighbours
 * (graph_bulk_links.c). A graph of at most BULK_LEAF rows has all of them as candidates.
 *
 * Invariants. A list is its first 2M slots that are not the row itself. Held rows are in no list
 * and have none. With one thread the seed and the rows determine every link.
 *
 * Rejected: the method of the base for the upper levels, in a tenth of their time (1 % of rows in
 * clusters were not found any more: greedy descent needs the long links that early rows have). */
#include "graph_bulk.h"

#include "graph_bulk_internal.h"

#include <assert.h>

/* Upper levels: rows that have one are inserted one by one, into a graph of nothing but them. */

static int bulk_insert_step(void *context, struct bulk_work *work, uint32_t index)
{
    const struct bulk *bulk = context;
    const uint32_t last = bulk_step_end(bulk, index);
    int code = OMENDB_OK;

    if (work->scratch == NULL) {
        work->scratch = graph_scratch_create(bulk->memory);
    }
    if (work->scratch == NULL) {
        return OMENDB_NOMEM;
    }
    for (uint32_t i = index * BULK_GRAIN; i < last && code == OMENDB_OK; i++) {
        const uint32_t row = bulk_member(bulk, i);
        if (bulk_is_upper(bulk, row)) {
            code = graph_insert(bulk->graph, work->scratch, row);
        }
    }
    return code;
}

/* The base lists that they got are not needed. */
static int bulk_clear_step(void *context, struct bulk_work *work, uint32_t index)
{
    const struct bulk *bulk = context;
    const uint32_t last = bulk_step_end(bulk, index);

    (void)work;
    for (uint32_t i = index * BULK_GRAIN; i < last; i++) {
        const uint32_t row = bulk_member(bulk, i);
        uint32_t *list = bulk_list(bulk, row);
        for (uint32_t j = 0; j < bulk->places && bulk_is_upper(bulk, row); j++) {
            list[j] = row;
        }
    }
    return OMENDB_OK;
}

/* Choosing all base lists: those of one leaf among all rows. */
static int bulk_make_base(struct bulk *bulk)
{
    const uint32_t count = bulk->count;
    int code = count > BULK_LEAF ? balls_find_nearest(bulk) : OMENDB_OK;

    if (code == OMENDB_OK) {
        code = links_refine(bulk);
    }
    if (code == OMENDB_OK) {
        code = links_accept(bulk);
    }
    bulk_array_free(bulk, bulk->uppers, bulk->view.count, sizeof *bulk->uppers);
    bulk_array_free(bulk, bulk->order, count, sizeof *bulk->order);
    bulk->uppers = bulk->order = NULL;
    return code;
}

static int bulk_make_graph(struct bulk *bulk)
{
    const uint32_t steps = bulk_steps(bulk->count);
    int code = bulk_run(bulk, steps, bulk->count, bulk_insert_step, bulk);

    if (code == OMENDB_OK) {
        code = bulk_run(bulk, steps, 0, bulk_clear_step, bulk);
    }
    if (code == OMENDB_OK) {
        code = bulk_make_base(bulk);
    }
    if (code == OMENDB_OK) {
        (void)graph_offer_entry(bulk->graph, bulk_member(bulk, 0), 0); /* unless an insertion did */
    }
    return code;
}

/* The whole */

/* Blocks of a file are verified before anything is read from them. */
static int bulk_verify_step(void *context, struct bulk_work *work, uint32_t index)
{
    const struct bulk *bulk = context;
    const uint32_t last = bulk_step_end(bulk, index);
    int code = OMENDB_OK;

    (void)work;
    for (uint32_t i = index * BULK_GRAIN; i < last && code == OMENDB_OK; i++) {
        code = graph_view_touch_vector(&bulk->view, bulk_member(bulk, i));
    }
    return code;
}

static int bulk_is_product(const struct kernel *kernel)
{
    int found = 0;

    for (int scalar = 0; scalar < KERNEL_SCALARS; scalar++) {
        found |= kernels_for((omendb_scalar)scalar, OMENDB_INNER_PRODUCT) == kernel;
    }
    return found;
}

static void bulk_free_heights(struct bulk *bulk)
{
    bulk_array_free(bulk, bulk->heights, bulk->view.count, sizeof *bulk->heights);
    bulk->heights = NULL;
}

/* Without heights, as where a norm is infinite, inner products are used as they are. */
static int bulk_make_heights(struct bulk *bulk)
{
    float *heights;

    if (!bulk_is_product(bulk->view.kernel)) {
        return OMENDB_OK;
    }
    heights = bulk_array(bulk, bulk->view.count, sizeof *heights);
    if (heights == NULL) {
        return OMENDB_NOMEM;
    }
    for (uint32_t row = 0; row < bulk->view.count; row++) {
        const void *vector = rows_at(&bulk->view.vectors, row);
        heights[row] = -bulk->view.kernel->pair(vector, vector, bulk->view.dim);
        bulk->radius = heights[row] > bulk->radius ? heights[row] : bulk->radius;
    }
    for (uint32_t row = 0; row < bulk->view.count; row++) {
        heights[row] = sqrtf(bulk->radius - heights[row]);
    }
    bulk->heights = heights;
    if (!(bulk->radius < INFINITY)) {
        bulk_free_heights(bulk);
    }
    return OMENDB_OK;
}

static int bulk_begin(struct bulk *bulk, struct graph *graph, const struct graph_bulk_terms *terms)
{
    const uint32_t places = graph->links_per_row;

    memset(bulk, 0, sizeof *bulk);
    bulk->graph = graph;
    bulk->memory = graph->memory;
    bulk->terms = terms;
    graph_get_view(graph, &bulk->view);
    bulk->count = bulk->view.count - terms->held.count;
    bulk->places = places;
    bulk->room = (BULK_EXPAND + 1) * places + bulk->view.M + 1;
    bulk->room = bulk->room < places + BULK_OFFERS ? places + BULK_OFFERS : bulk->room;
    bulk->room = bulk->room < BULK_LEAF ? BULK_LEAF : bulk->room;
    return platform_mutex_init(&bulk->mutex);
}

static int bulk_read_vectors(struct bulk *bulk)
{
    int code = OMENDB_OK;

    if (graph_view_verifies(&bulk->view)) {
        code = bulk_run(bulk, bulk_steps(bulk->count), 0, bulk_verify_step, bulk);
    }
    return code == OMENDB_OK ? bulk_make_heights(bulk) : code;
}

static int bulk_end(struct bulk *bulk, int code)
{
    struct graph_scratch *scratch = NULL;

    bulk_free_works(bulk);
    bulk_free_heights(bulk);
    platform_mutex_destroy(&bulk->mutex);
    if (code == OMENDB_OK) {
        scratch = graph_scratch_create(bulk->memory);
        code = scratch == NULL ? OMENDB_NOMEM
                               : graph_repair_unheld(bulk->graph, scratch, bulk->view.count,
                                                     &bulk->terms->held);
    }
    graph_scratch_destroy(scratch);
    return code;
}

OMENDB_INTERNAL int graph_bulk(struct graph *graph, const struct graph_bulk_terms *terms)
{
    struct bulk bulk;
    int code = bulk_begin(&bulk, graph, terms);

    if (code != OMENDB_OK) {
        return code;
    }
    assert(bulk.view.entry_row == GRAPH_NO_ROW);
    assert(terms->held.count == 0 || terms->held.step > 1);
    bulk.total = (uint64_t)bulk.count * (bulk.count > BULK_LEAF ? 5 + 2 * BULK_REPLICAS : 5);
    if (bulk.count != 0) {
        code = bulk_read_vectors(&bulk);
        if (code == OMENDB_OK) {
            code = bulk_make_graph(&bulk);
        }
    }
    return bulk_end(&bulk, code);
}

OMENDB_INTERNAL int graph_refine(struct graph *graph, const struct graph_bulk_terms *terms)
{
    struct bulk bulk;
    int code = bulk_begin(&bulk, graph, terms);

    if (code != OMENDB_OK) {
        return code;
    }
    bulk.total = (uint64_t)bulk.count * 4;
    bulk.is_finished = 1;
    code = bulk_read_vectors(&bulk);
    if (code == OMENDB_OK) {
        code = links_refine(&bulk);
    }
    if (code == OMENDB_OK && bulk.count != 0) {
        code = links_accept(&bulk);
    }
    return bulk_end(&bulk, code);
}
