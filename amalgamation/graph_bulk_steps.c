/* graph_bulk_steps.c: the ground of bulk building: distances between members, arrays, and steps run
 * in parallel, each with working memory that goes from step to step.
 *
 * Invariants. There are at most as many works as steps run at the same time, and none is freed
 * before the end: memory does not depend on the number of steps. All arrays of a work are one
 * block, each on cache lines of its own. `progress` is called by the thread that called bulk_run,
 * between slices of steps, and what it is told only grows. */
#include "graph_bulk_internal.h"

#include "error.h"

#define BULK_SLICE 64 /* steps between two calls of `progress` */

OMENDB_INTERNAL void bulk_distances(const struct bulk *bulk, uint32_t member,
                                    const uint32_t *others, const void *const *vectors,
                                    uint32_t count, float *distances)
{
    float height;

    bulk->view.kernel->many(bulk_vector(bulk, member), vectors, count, bulk->view.dim, distances);
    if (bulk->heights == NULL) {
        return;
    }
    height = bulk->heights[member];
    for (uint32_t i = 0; i < count; i++) {
        const float square = bulk->radius + distances[i] - height * bulk->heights[others[i]];
        distances[i] = square < 0 ? 0 : square;
    }
}

OMENDB_INTERNAL void *bulk_array(const struct bulk *bulk, size_t count, size_t size)
{
    return memory_alloc_aligned(bulk->memory, memory_multiply(count, size));
}

OMENDB_INTERNAL void bulk_array_free(const struct bulk *bulk, void *array, size_t count,
                                     size_t size)
{
    memory_free_aligned(bulk->memory, array, count * size);
}

/* Working memory */

static uint32_t bulk_hash_size(uint32_t room)
{
    uint32_t size = 1024;

    while (size < 2 * room) {
        size *= 2;
    }
    return size;
}

/* The next `bytes` of the block, on a cache line; NULL while only the size is asked for. */
static void *bulk_carve(char *block, size_t *at, size_t count, size_t size)
{
    char *part = block != NULL ? block + *at : NULL;

    *at += (count * size + OMENDB_CACHE_LINE - 1) / OMENDB_CACHE_LINE * OMENDB_CACHE_LINE;
    return part;
}

/* Sets the arrays of a work into the block; returns how many bytes they take. */
static size_t bulk_work_carve(const struct bulk *bulk, struct bulk_work *work, char *block)
{
    const size_t room = bulk->room, places = bulk->places;
    const size_t vectors = room > BULK_LEAF ? room : BULK_LEAF;
    const size_t distances = room > BULK_TILE ? room : BULK_TILE;
    size_t at = 0;

    work->hash_mask = bulk_hash_size(bulk->room) - 1;
    work->keys = bulk_carve(block, &at, room, sizeof *work->keys);
    work->far_keys = bulk_carve(block, &at, 2 * places + 1, sizeof *work->far_keys);
    work->found = bulk_carve(block, &at, room, sizeof *work->found);
    work->vectors = bulk_carve(block, &at, vectors, sizeof *work->vectors);
    work->distances = bulk_carve(block, &at, distances, sizeof *work->distances);
    work->hash = bulk_carve(block, &at, work->hash_mask + 1, sizeof *work->hash);
    work->lists = bulk_carve(block, &at, BULK_LEAF * places, sizeof *work->lists);
    work->lengths = bulk_carve(block, &at, BULK_LEAF, sizeof *work->lengths);
    work->uppers = bulk_carve(block, &at, BULK_LEAF, sizeof *work->uppers);
    work->upper_vectors = bulk_carve(block, &at, BULK_LEAF, sizeof *work->upper_vectors);
    work->worst = bulk_carve(block, &at, BULK_LEAF + BULK_MASK_GROUP, sizeof *work->worst);
    work->chosen = bulk_carve(block, &at, places, sizeof *work->chosen);
    work->chosen_vectors = bulk_carve(block, &at, places, sizeof *work->chosen_vectors);
    return at;
}

static struct bulk_work *bulk_work_create(const struct bulk *bulk)
{
    struct bulk_work *work = memory_zalloc(bulk->memory, sizeof *work);

    if (work == NULL) {
        return NULL;
    }
    work->bytes = bulk_work_carve(bulk, work, NULL);
    work->block = memory_alloc_aligned(bulk->memory, work->bytes);
    if (work->block == NULL) {
        memory_free(bulk->memory, work, sizeof *work);
        return NULL;
    }
    (void)bulk_work_carve(bulk, work, work->block);
    return work;
}

static struct bulk_work *bulk_work_take(struct bulk *bulk)
{
    struct bulk_work *work;

    platform_mutex_lock(&bulk->mutex);
    work = bulk->works;
    if (work != NULL) {
        bulk->works = work->next;
    }
    platform_mutex_unlock(&bulk->mutex);
    return work != NULL ? work : bulk_work_create(bulk);
}

static void bulk_work_give(struct bulk *bulk, struct bulk_work *work)
{
    platform_mutex_lock(&bulk->mutex);
    work->next = bulk->works;
    bulk->works = work;
    platform_mutex_unlock(&bulk->mutex);
}

OMENDB_INTERNAL void bulk_free_works(struct bulk *bulk)
{
    while (bulk->works != NULL) {
        struct bulk_work *work = bulk->works;
        bulk->works = work->next;
        graph_scratch_destroy(work->scratch);
        memory_free_aligned(bulk->memory, work->block, work->bytes);
        memory_free(bulk->memory, work, sizeof *work);
    }
}

/* Steps in parallel */

struct bulk_slice {
    struct bulk *bulk;
    bulk_step *step;
    void *context;
    uint32_t first;
};

static int bulk_run_step(void *context, uint64_t index)
{
    const struct bulk_slice *slice = context;
    struct bulk_work *work = bulk_work_take(slice->bulk);
    int code;

    if (work == NULL) {
        return OMENDB_NOMEM;
    }
    code = slice->step(slice->context, work, slice->first + (uint32_t)index);
    bulk_work_give(slice->bulk, work);
    return code;
}

static int bulk_run_slice(struct bulk *bulk, struct bulk_slice *slice, uint32_t count)
{
    int code = OMENDB_OK;

    if (bulk->terms->parallel != NULL) {
        return bulk->terms->parallel(bulk->terms->runner, count, bulk_run_step, slice);
    }
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++) {
        code = bulk_run_step(slice, i);
    }
    return code;
}

OMENDB_INTERNAL int bulk_run(struct bulk *bulk, uint32_t steps, uint32_t worth, bulk_step *step,
                             void *context)
{
    const struct graph_bulk_terms *terms = bulk->terms;
    int code = OMENDB_OK;

    for (uint32_t first = 0; first < steps && code == OMENDB_OK; first += BULK_SLICE) {
        struct bulk_slice slice = {bulk, step, context, first};
        const uint32_t count = steps - first < BULK_SLICE ? steps - first : BULK_SLICE;
        code = bulk_run_slice(bulk, &slice, count);
        if (code == OMENDB_OK && terms->progress != NULL) {
            const uint64_t done = bulk->done + (uint64_t)worth * (first + count) / steps;
            if (terms->progress(terms->context, done, bulk->total) != 0) {
                code = error_set(OMENDB_DONE, "stopped by the progress function");
            }
        }
    }
    bulk->done += worth;
    return code;
}

#undef BULK_SLICE
