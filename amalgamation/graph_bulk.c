/* graph_bulk.c: building a whole graph at once.
 *
 * The rows that have upper levels, one in M, are inserted one by one: a graph of nothing but them.
 * The base lists of all rows are then made anew, in steps that are all parallel:
 *   split     the rows into leaves of at most BULK_LEAF, each row into those of its BULK_FAN
 * nearest leaders (random rows), cells that are too large again among leaders of their own: "ball
 * carving", as in PiPNN (arXiv 2602.21247); leaves    all pairs inside each, both ways; a row keeps
 * the nearest 2M, and the nearest that has upper levels. Splitting and leaves are repeated with
 * other leaders BULK_REPLICAS times; refine    each row meets the neighbours of its nearest and
 * chooses its list among the best of all, and the links at level 1 of that nearest upper row, which
 * lead out of a cluster; accept    each row chooses again among its list and those who chose it. A
 * graph of at most BULK_LEAF rows has all of them as candidates.
 *
 * Choosing is that of HNSW first (near to far, none that a chosen one is nearer to than the owner);
 * free places then go, near to far, to candidates that a chosen one is nearer to, but not by the
 * factor alpha: Vamana's pruning (DiskANN, NeurIPS 2019) in two passes, without which the nearest
 * fill the list before a far one has its turn (10 to 20 % more distances). Distances under L2,
 * cosine and Hamming are squares (for cosine, half of those of unit vectors) and meet alpha
 * squared; under inner product they are replaced, see bulk_distances.
 *
 * Invariants. A list is its first 2M slots that are not the row itself. Leaves have a bounded size,
 * splitting a bounded number of rounds, after which cells are cut up: no data makes it quadratic.
 * Ties go by the XOR of numbers (graph_internal.h), in splitting, too: copies of one vector fall
 * apart into balls of numbers. At most three quarters of a list of nearest, and half of a pool, are
 * at one distance, so that a row beside a mass of copies meets others as well. While leaves are
 * compared, a list's distances are kept as the upper 16 bits of their keys: enough to tell which to
 * measure exactly later.
 *
 * Rejected: the same method for the upper levels, in a tenth of their time (1 % of rows in clusters
 * were not found any more: greedy descent needs the long links that early rows have). A second
 * refinement (a third more time for 1 to 2 % fewer distances). Pools of 100 to 200 candidates (3 to
 * 5 % more distances: long links take the places). Links back one by one with a choice at each full
 * list, as in Vamana, instead of one choice among all of them (several times its work). */
#include "graph_bulk.h"

#include "error.h"
#include "graph_internal.h"

#include <assert.h>

#define BULK_LEAF         1024 /* members of a leaf at most */
#define BULK_CELL         400  /* members for each leader */
#define BULK_LEADERS      256  /* of one cell at most */
#define BULK_FAN          3    /* leaves of a member in one splitting */
#define BULK_REPLICAS     3    /* splittings */
#define BULK_ROUNDS       6    /* of one splitting */
#define BULK_EXPAND       12   /* neighbours whose lists are looked through */
#define BULK_POOL         48   /* nearest candidates among which a list is chosen */
#define BULK_FAR_SHARE    4 /* 1 / the share of a list that far candidates may take from near ones */
#define BULK_OFFERS       128   /* of those who chose a member, how many it looks at */
#define BULK_ALPHA        1.15f /* of true distances, not squares */
#define BULK_ALPHA_SQUARE (BULK_ALPHA * BULK_ALPHA)
#define BULK_GRAIN        256   /* members of a step */
#define BULK_SLICE        64    /* steps between two calls of `progress` */
#define BULK_TILE         256   /* vectors that many are compared with at a time, at most */
#define BULK_TILE_BYTES   65536 /* a part of the second cache */
#define BULK_GROUP        4
#define BULK_MASK_GROUP   16
#define BULK_GOLDEN       UINT32_C(2654435769)

_Static_assert(BULK_LEAF / BULK_CELL + 1 >= BULK_FAN, "a cell has a leader for each choice");
_Static_assert(BULK_LEADERS <= UINT16_MAX, "choices are 16 bits");
_Static_assert(BULK_TILE % BULK_MASK_GROUP == 0, "masks are computed in groups");

struct bulk_cell {
    uint32_t first; /* in entries */
    uint32_t count;
    uint32_t leader;  /* its first one in leaders */
    uint32_t leaders; /* 0: a leaf */
    uint32_t step;    /* its first one of the round */
};

/* Working memory of one step. */
struct bulk_work {
    struct bulk_work *next;
    struct graph_scratch *scratch; /* for insertion; NULL until needed */
    void *block;                   /* the arrays below */
    size_t bytes;
    uint64_t *keys;       /* room */
    uint64_t *far_keys;   /* 2 * places + 1 */
    uint32_t *found;      /* room */
    const void **vectors; /* room, or a leaf */
    float *distances;     /* room, or a tile */
    uint32_t *hash;       /* hash_mask + 1 */
    uint32_t hash_mask;
    uint32_t found_count;
    uint32_t far_count;
    uint64_t *lists;   /* keys, `places` for each of a leaf */
    uint32_t *lengths; /* a leaf */
    uint32_t *uppers;  /* a leaf's members with links above */
    const void **upper_vectors;
    uint32_t upper_count;
    float *worst;     /* a leaf */
    uint32_t *chosen; /* places */
    const void **chosen_vectors;
};

struct bulk {
    struct graph *graph;
    struct memory *memory;
    const struct graph_bulk_terms *terms;
    struct graph_view view;
    float *heights;  /* under inner product, by row; else NULL */
    float radius;    /* square of the greatest norm */
    uint32_t places; /* of a list */
    uint32_t room;   /* for candidates of one member */
    int is_finished; /* lists are chosen ones, not the nearest */
    uint64_t random;
    uint64_t done, total;
    struct platform_mutex mutex; /* guards `works` */
    struct bulk_work *works;     /* not in use */

    uint32_t count; /* members: rows that are not held; arrays by member have view.count places */
    uint16_t *ranks;
    uint32_t *uppers; /* the nearest other member that has links above; GRAPH_NO_ROW */
    uint16_t *upper_ranks;

    uint32_t *entries; /* members by cell; of the first round: not there yet, each one is its own */
    uint32_t *sorted;
    uint16_t *choices;
    uint32_t entry_count;
    uint32_t fan;
    int is_first;
    struct bulk_cell *cells;
    uint32_t cell_count;
    size_t cell_room;
    uint32_t *leaders;
    uint32_t leader_count;

    uint32_t *order; /* members of a leaf side by side, for the cache; NULL: ascending */
    uint32_t *offers;
    size_t *offer_starts; /* count + 1 */
    _Atomic uint32_t *offer_counts;
};

/* Rows */

static inline const void *bulk_vector(const struct bulk *bulk, uint32_t row)
{
    return rows_at(&bulk->view.vectors, row);
}

static inline uint32_t *bulk_list(const struct bulk *bulk, uint32_t row)
{
    return (uint32_t *)(void *)rows_at(&bulk->view.links, row);
}

/* Members in the order in which they are worked on. */
static inline uint32_t bulk_member(const struct bulk *bulk, uint32_t at)
{
    return bulk->order != NULL ? bulk->order[at] : graph_unheld_row(&bulk->terms->held, at);
}

static struct platform_mutex *bulk_stripe(const struct bulk *bulk, uint32_t member)
{
    return &bulk->graph->stripes[(member * BULK_GOLDEN) >> 24 & (GRAPH_STRIPES - 1)];
}

/* Distances of a member from `count` others, given with their vectors. Under inner product they are
 * half of squared distances, too: of the vectors with one more element each, its height, that gives
 * all of them the greatest norm. What is nearest to a query by inner product is nearest to it there
 * (Bachrach et al., RecSys 2014). */
static void bulk_distances(const struct bulk *bulk, uint32_t member, const uint32_t *others,
                           const void *const *vectors, uint32_t count, float *distances)
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

/* The rule of the many small arrays below: allocated and freed by count. */
static void *bulk_array(const struct bulk *bulk, size_t count, size_t size)
{
    return memory_alloc_aligned(bulk->memory, memory_multiply(count, size));
}

static void bulk_array_free(const struct bulk *bulk, void *array, size_t count, size_t size)
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

static void bulk_free_works(struct bulk *bulk)
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

typedef int bulk_step(struct bulk *bulk, struct bulk_work *work, uint32_t index);

struct bulk_slice {
    struct bulk *bulk;
    bulk_step *step;
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
    code = slice->step(slice->bulk, work, slice->first + (uint32_t)index);
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

/* Runs `steps` steps, which are `worth` of the total. */
static int bulk_run(struct bulk *bulk, uint32_t steps, uint32_t worth, bulk_step *step)
{
    const struct graph_bulk_terms *terms = bulk->terms;
    int code = OMENDB_OK;

    for (uint32_t first = 0; first < steps && code == OMENDB_OK; first += BULK_SLICE) {
        struct bulk_slice slice = {bulk, step, first};
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

static uint32_t bulk_steps(uint32_t count)
{
    return count / BULK_GRAIN + (count % BULK_GRAIN != 0);
}

/* The end of the step's members from its first, index * BULK_GRAIN. */
static uint32_t bulk_step_end(const struct bulk *bulk, uint32_t index)
{
    const uint32_t first = index * BULK_GRAIN;

    return bulk->count - first < BULK_GRAIN ? bulk->count : first + BULK_GRAIN;
}

static uint32_t bulk_tile(const struct bulk *bulk)
{
    const size_t tile = BULK_TILE_BYTES / (bulk->view.vectors.stride + 1) / BULK_MASK_GROUP;

    return tile < 1                             ? BULK_MASK_GROUP
           : tile > BULK_TILE / BULK_MASK_GROUP ? BULK_TILE
                                                : (uint32_t)tile * BULK_MASK_GROUP;
}

/* Splitting */

/* The generator of SplitMix64. */
static uint64_t bulk_random(struct bulk *bulk)
{
    uint64_t hash = bulk->random += UINT64_C(0x9e3779b97f4a7c15);

    hash = (hash ^ (hash >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ (hash >> 27)) * UINT64_C(0x94d049bb133111eb);
    return hash ^ (hash >> 31);
}

static uint32_t bulk_entry(const struct bulk *bulk, uint32_t at)
{
    return bulk->is_first ? graph_unheld_row(&bulk->terms->held, at) : bulk->entries[at];
}

/* One leader out of each of equal runs of the cell. */
static void bulk_pick_leaders(struct bulk *bulk, const struct bulk_cell *cell)
{
    for (uint32_t i = 0; i < cell->leaders; i++) {
        const uint64_t from = (uint64_t)cell->count * i / cell->leaders;
        const uint64_t to = (uint64_t)cell->count * (i + 1) / cell->leaders;
        const uint32_t at = cell->first + (uint32_t)(from + bulk_random(bulk) % (to - from));
        bulk->leaders[cell->leader + i] = bulk_entry(bulk, at);
    }
}

/* The nearest leaders of one member so far. Those of a member whose distances are no numbers are
 * the first ones. */
struct bulk_nearest {
    uint64_t keys[BULK_FAN];
    uint16_t leaders[BULK_FAN];
};

static void bulk_offer_leader(const struct bulk *bulk, struct bulk_nearest *nearest, uint64_t key,
                              uint32_t leader)
{
    uint32_t at = bulk->fan - 1;

    if (nearest->keys[at] <= key) {
        return;
    }
    for (; at > 0 && nearest->keys[at - 1] > key; at--) {
        nearest->keys[at] = nearest->keys[at - 1];
        nearest->leaders[at] = nearest->leaders[at - 1];
    }
    nearest->keys[at] = key;
    nearest->leaders[at] = (uint16_t)leader;
}

/* Compares a member with `count` leaders of the cell from `first` on, whose vectors are in
 * work->vectors. */
static void bulk_compare_leaders(const struct bulk *bulk, struct bulk_work *work,
                                 const struct bulk_cell *cell, uint32_t first, uint32_t count,
                                 uint32_t member, struct bulk_nearest *nearest)
{
    const uint32_t *leaders = bulk->leaders + cell->leader + first;
    const float *distances = work->distances;

    bulk_distances(bulk, member, leaders, work->vectors, count, work->distances);
    for (uint32_t i = 0; i < count; i++) {
        const float farthest = graph_key_distance(nearest->keys[bulk->fan - 1]); /* NaN: none yet */
        if (!isnan(distances[i]) && !(distances[i] > farthest)) {
            bulk_offer_leader(bulk, nearest, graph_key(distances[i], leaders[i] ^ member),
                              first + i);
        }
    }
}

static const struct bulk_cell *bulk_cell_of_step(const struct bulk *bulk, uint32_t step)
{
    uint32_t low = 0, high = bulk->cell_count;

    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (bulk->cells[middle].step <= step) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return &bulk->cells[low];
}

/* Chooses the leaders of the members of one step. */
static int bulk_split_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const struct bulk_cell *cell = bulk_cell_of_step(bulk, index);
    const uint32_t from = (index - cell->step) * BULK_GRAIN, tile = bulk_tile(bulk);
    const uint32_t rows = cell->count - from < BULK_GRAIN ? cell->count - from : BULK_GRAIN;
    uint16_t *choices = bulk->choices + ((size_t)cell->first + from) * bulk->fan;
    struct bulk_nearest nearest[BULK_GRAIN];

    for (uint32_t i = 0; i < rows * BULK_FAN; i++) {
        nearest[i / BULK_FAN].keys[i % BULK_FAN] = GRAPH_KEY_NONE;
        nearest[i / BULK_FAN].leaders[i % BULK_FAN] = (uint16_t)(i % BULK_FAN);
    }
    for (uint32_t first = 0; first < cell->leaders; first += tile) {
        const uint32_t count = cell->leaders - first < tile ? cell->leaders - first : tile;
        for (uint32_t i = 0; i < count; i++) {
            work->vectors[i] = bulk_vector(bulk, bulk->leaders[cell->leader + first + i]);
        }
        for (uint32_t i = 0; i < rows; i++) {
            const uint32_t member = bulk_entry(bulk, cell->first + from + i);
            bulk_compare_leaders(bulk, work, cell, first, count, member, &nearest[i]);
        }
    }
    for (uint32_t i = 0; i < rows; i++) {
        memcpy(choices + i * bulk->fan, nearest[i].leaders, bulk->fan * sizeof *choices);
    }
    return OMENDB_OK;
}

/* Sorts the cell's entries by their choices and appends the cells that they make. */
static void bulk_sort_cell(struct bulk *bulk, const struct bulk_cell *cell, uint32_t *starts,
                           struct bulk_cell *cells, uint32_t *count)
{
    const uint32_t choice_count = cell->count * bulk->fan;
    const uint16_t *choices = bulk->choices + (size_t)cell->first * bulk->fan;
    uint32_t first = cell->first * bulk->fan;

    memset(starts, 0, cell->leaders * sizeof *starts);
    for (uint32_t i = 0; i < choice_count; i++) {
        starts[choices[i]]++;
    }
    for (uint32_t i = 0; i < cell->leaders; i++) {
        const uint32_t length = starts[i];
        starts[i] = first;
        if (length != 0) {
            cells[(*count)++] = (struct bulk_cell){.first = first, .count = length};
        }
        first += length;
    }
    for (uint32_t i = 0; i < choice_count; i++) {
        bulk->sorted[starts[choices[i]]++] = bulk_entry(bulk, cell->first + i / bulk->fan);
    }
}

/* Replaces the cells by those that their leaders make, the others staying as they are. */
static void bulk_sort_cells(struct bulk *bulk, uint32_t *starts, struct bulk_cell *cells,
                            uint32_t *count)
{
    for (uint32_t i = 0; i < bulk->cell_count; i++) {
        const struct bulk_cell *cell = &bulk->cells[i];
        if (cell->leaders == 0) {
            cells[(*count)++] = *cell;
            continue;
        }
        bulk_sort_cell(bulk, cell, starts, cells, count);
        if (!bulk->is_first) {
            memcpy(bulk->entries + cell->first, bulk->sorted + cell->first,
                   cell->count * sizeof *bulk->sorted);
        }
    }
    if (bulk->is_first) {
        uint32_t *entries = bulk->sorted;
        bulk->sorted = bulk->entries;
        bulk->entries = entries;
    }
}

/* Plans a round: leaders and steps of the cells that are too large. */
static uint32_t bulk_plan_round(struct bulk *bulk)
{
    uint32_t steps = 0;

    bulk->fan = bulk->is_first ? BULK_FAN : 1;
    bulk->leader_count = 0;
    for (uint32_t i = 0; i < bulk->cell_count; i++) {
        struct bulk_cell *cell = &bulk->cells[i];
        const uint32_t leaders = cell->count / BULK_CELL + 1;
        cell->leaders = cell->count <= BULK_LEAF ? 0
                        : leaders < BULK_LEADERS ? leaders
                                                 : BULK_LEADERS;
        cell->leader = bulk->leader_count;
        cell->step = steps;
        bulk->leader_count += cell->leaders;
        steps += cell->leaders != 0 ? bulk_steps(cell->count) : 0;
    }
    return steps;
}

static void bulk_replace_cells(struct bulk *bulk, struct bulk_cell *cells, size_t room,
                               uint32_t count)
{
    memory_free(bulk->memory, bulk->cells, bulk->cell_room * sizeof *bulk->cells);
    bulk->cells = cells;
    bulk->cell_room = room;
    bulk->cell_count = count;
}

/* One round, for which bulk_plan_round found something to do. */
static int bulk_split_round(struct bulk *bulk, uint32_t steps)
{
    struct memory *memory = bulk->memory;
    const size_t leaders = bulk->leader_count, room = leaders + bulk->cell_count;
    uint32_t *starts = memory_array(memory, leaders, sizeof *starts);
    struct bulk_cell *cells = memory_array(memory, room, sizeof *cells);
    uint32_t count = 0;
    int code = OMENDB_NOMEM;

    bulk->leaders = memory_array(memory, leaders, sizeof *bulk->leaders);
    if (starts != NULL && cells != NULL && bulk->leaders != NULL) {
        for (uint32_t i = 0; i < bulk->cell_count; i++) {
            bulk_pick_leaders(bulk, &bulk->cells[i]);
        }
        code = bulk_run(bulk, steps, bulk->is_first ? bulk->count : 0, bulk_split_step);
    }
    if (code == OMENDB_OK) {
        bulk_sort_cells(bulk, starts, cells, &count);
        bulk_replace_cells(bulk, cells, room, count);
    } else {
        memory_free(memory, cells, room * sizeof *cells);
    }
    memory_free(memory, bulk->leaders, leaders * sizeof *bulk->leaders);
    memory_free(memory, starts, leaders * sizeof *starts);
    bulk->leaders = NULL;
    return code;
}

/* Cuts up what no leader could split, by a bounded number of rounds. */
static int bulk_cut_cells(struct bulk *bulk)
{
    uint32_t room = 0, count = 0;
    struct bulk_cell *cells;

    for (uint32_t i = 0; i < bulk->cell_count; i++) {
        room += bulk->cells[i].count / BULK_LEAF + 1;
    }
    cells = memory_array(bulk->memory, room, sizeof *cells);
    if (cells == NULL) {
        return OMENDB_NOMEM;
    }
    for (uint32_t i = 0; i < bulk->cell_count; i++) {
        const struct bulk_cell *cell = &bulk->cells[i];
        const uint32_t parts = cell->count / BULK_LEAF + (cell->count % BULK_LEAF != 0);
        for (uint32_t part = 0; part < parts; part++) {
            const uint32_t from = (uint32_t)((uint64_t)cell->count * part / parts);
            const uint32_t to = (uint32_t)((uint64_t)cell->count * (part + 1) / parts);
            cells[count++] = (struct bulk_cell){.first = cell->first + from, .count = to - from};
        }
    }
    bulk_replace_cells(bulk, cells, room, count);
    return OMENDB_OK;
}

static int bulk_split(struct bulk *bulk)
{
    struct bulk_cell *all = memory_zalloc(bulk->memory, sizeof *all);
    uint32_t steps = 1;
    int code = OMENDB_OK;

    if (all == NULL) {
        return OMENDB_NOMEM;
    }
    all->count = bulk->count;
    bulk_replace_cells(bulk, all, 1, 1);
    bulk->is_first = 1;
    for (uint32_t round = 0; round < BULK_ROUNDS && code == OMENDB_OK; round++) {
        steps = bulk_plan_round(bulk);
        if (steps == 0) {
            break;
        }
        code = bulk_split_round(bulk, steps);
        bulk->is_first = 0;
    }
    return code == OMENDB_OK && steps != 0 ? bulk_cut_cells(bulk) : code;
}

/* Leaves */

/* The greatest distance of a rank. */
static float bulk_rank_limit(uint32_t rank)
{
    const float limit = graph_key_distance(((uint64_t)rank << 16 | 0xffff) << 32);

    return limit < INFINITY ? limit : INFINITY; /* of the infinite rank it is no number */
}

/* Where in a full run of equal distances a key that belongs at `at` pushes out another: the end of
 * the run, `length` if the run is not full yet, or GRAPH_NO_ROW if it is the one that is too much.
 */
static uint32_t bulk_end_of_ties(const uint64_t *list, uint32_t length, uint32_t at, uint64_t key,
                                 uint32_t limit)
{
    uint32_t first = at, last = at;

    while (first > 0 && list[first - 1] >> 32 == key >> 32) {
        first--;
    }
    while (last < length && list[last] >> 32 == key >> 32) {
        last++;
    }
    return last - first < limit ? length : last > at ? last - 1 : GRAPH_NO_ROW;
}

/* Puts a key into the list of the leaf's entry `place`. */
static void bulk_leaf_offer(const struct bulk *bulk, struct bulk_work *work, uint32_t place,
                            uint64_t key)
{
    uint64_t *list = work->lists + (size_t)place * bulk->places;
    uint32_t length = work->lengths[place], at = length, end;

    while (at > 0 && list[at - 1] > key) {
        at--;
    }
    if (at == bulk->places) {
        return;
    }
    end = bulk_end_of_ties(list, length, at, key, bulk->places / 4 * 3);
    if (end == GRAPH_NO_ROW) {
        return;
    }
    if (end == length) {
        work->lengths[place] = length += length < bulk->places;
        end = length - 1;
    }
    memmove(list + at + 1, list + at, (end - at) * sizeof *list);
    list[at] = key;
    if (length == bulk->places) {
        const float worst = graph_key_distance(list[length - 1]);
        work->worst[place] = worst < work->worst[place] ? worst : work->worst[place];
    }
}

/* Offers each other the entries `place` and `other`. */
static void bulk_leaf_meet(const struct bulk *bulk, struct bulk_work *work, const uint32_t *entries,
                           uint32_t place, uint32_t other, float distance)
{
    const uint64_t key = graph_key(distance, entries[place] ^ entries[other]);

    if (entries[place] == entries[other]) {
        return; /* twice in one leaf: its distances to leaders were no numbers */
    }
    if (distance <= work->worst[place]) {
        bulk_leaf_offer(bulk, work, place, key);
    }
    if (distance <= work->worst[other]) {
        bulk_leaf_offer(bulk, work, other, key);
    }
}

/* Compares the entry `place` of a leaf with those of [first, last), at most a tile. The masks are
 * made in groups of a constant size for the compiler's vectors. */
static void bulk_leaf_compare(const struct bulk *bulk, struct bulk_work *work,
                              const uint32_t *entries, uint32_t place, uint32_t first,
                              uint32_t last)
{
    const uint32_t count = last - first;
    const float *distances = work->distances, *worst = work->worst + first;
    const float own = work->worst[place];

    bulk_distances(bulk, entries[place], entries + first, work->vectors + first, count,
                   work->distances);
    for (uint32_t group = 0; group < count; group += BULK_MASK_GROUP) {
        const uint32_t end = count - group < BULK_MASK_GROUP ? count - group : BULK_MASK_GROUP;
        int32_t near[BULK_MASK_GROUP], any = 0;
        for (uint32_t i = 0; i < BULK_MASK_GROUP; i++) {
            near[i] = (distances[group + i] <= own) | (distances[group + i] <= worst[group + i]);
        }
        for (uint32_t i = 0; i < BULK_MASK_GROUP; i++) {
            any |= near[i];
        }
        for (uint32_t i = 0; any != 0 && i < end; i++) {
            if (near[i]) {
                bulk_leaf_meet(bulk, work, entries, place, first + group + i, distances[group + i]);
            }
        }
    }
}

/* What member's list holds at `at`, as rank << 32 | number ^ member; UINT64_MAX at its end. */
static uint64_t bulk_ranked(const struct bulk *bulk, uint32_t member, uint32_t at)
{
    const uint32_t *list = bulk_list(bulk, member);

    if (at == bulk->places || list[at] == member) {
        return UINT64_MAX;
    }
    return (uint64_t)bulk->ranks[(size_t)member * bulk->places + at] << 32 | (list[at] ^ member);
}

/* Merges what a leaf found for a member into its list. Both are ascending; what is in both has the
 * same rank and number in both, except under cosine, where rounding may differ: choosing does not
 * mind. */
static void bulk_merge(const struct bulk *bulk, struct bulk_work *work, uint32_t member,
                       const uint64_t *found, uint32_t found_count)
{
    const uint32_t places = bulk->places;
    uint32_t count = 0, ties = 0, i = 0, j = 0;
    uint32_t *list = bulk_list(bulk, member);
    uint64_t *merged = work->keys;

    platform_mutex_lock(bulk_stripe(bulk, member));
    while (count < places) {
        const uint64_t old = bulk_ranked(bulk, member, i);
        const uint64_t fresh =
            j < found_count ? found[j] >> 48 << 32 | (uint32_t)found[j] >> 1 : UINT64_MAX;
        const uint64_t next = old < fresh ? old : fresh;
        if (next == UINT64_MAX) {
            break;
        }
        i += old == next;
        j += fresh == next;
        ties = count != 0 && merged[count - 1] >> 32 == next >> 32 ? ties + 1 : 0;
        if (ties < places / 4 * 3) {
            merged[count++] = next;
        }
    }
    for (i = 0; i < count; i++) {
        list[i] = (uint32_t)merged[i] ^ member;
        bulk->ranks[(size_t)member * places + i] = (uint16_t)(merged[i] >> 32);
    }
    platform_mutex_unlock(bulk_stripe(bulk, member));
}

static int bulk_is_upper(const struct bulk *bulk, uint32_t member)
{
    return *rows_at(&bulk->view.levels, member) > 0;
}

/* Keeps the nearest of the leaf's members with links above, if it is nearer than that of others. */
static void bulk_meet_uppers(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    uint64_t nearest = GRAPH_KEY_NONE;

    for (uint32_t first = 0; first < work->upper_count; first += BULK_TILE) {
        const uint32_t left = work->upper_count - first;
        const uint32_t count = left < BULK_TILE ? left : BULK_TILE, *uppers = work->uppers + first;
        bulk_distances(bulk, member, uppers, work->upper_vectors + first, count, work->distances);
        for (uint32_t i = 0; i < count; i++) {
            const uint64_t key = graph_key(work->distances[i], uppers[i] ^ member);
            nearest = key < nearest && uppers[i] != member ? key : nearest;
        }
    }
    if (nearest == GRAPH_KEY_NONE) {
        return;
    }
    platform_mutex_lock(bulk_stripe(bulk, member));
    if (bulk->uppers[member] == GRAPH_NO_ROW || nearest >> 48 < bulk->upper_ranks[member]) {
        bulk->uppers[member] = graph_key_row(nearest, member);
        bulk->upper_ranks[member] = (uint16_t)(nearest >> 48);
    }
    platform_mutex_unlock(bulk_stripe(bulk, member));
}

/* Other leaves of the same members may be compared at the same time: their lists are read and
 * written under their stripes. */
static int bulk_leaf_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const struct bulk_cell *cell = &bulk->cells[index];
    const uint32_t *entries = bulk->entries + cell->first;
    const uint32_t tile = bulk_tile(bulk), last_place = bulk->places - 1;

    work->upper_count = 0;
    for (uint32_t i = 0; i < cell->count; i++) {
        const uint32_t member = entries[i];
        work->lengths[i] = 0;
        if (bulk_is_upper(bulk, member)) {
            work->uppers[work->upper_count] = member;
            work->upper_vectors[work->upper_count++] = bulk_vector(bulk, member);
        }
        work->vectors[i] = bulk_vector(bulk, member);
        platform_mutex_lock(bulk_stripe(bulk, member));
        work->worst[i] =
            bulk_list(bulk, member)[last_place] == member
                ? INFINITY
                : bulk_rank_limit(bulk->ranks[(size_t)member * bulk->places + last_place]);
        platform_mutex_unlock(bulk_stripe(bulk, member));
    }
    for (uint32_t first = 0; first < cell->count; first += tile) {
        const uint32_t last = cell->count - first < tile ? cell->count : first + tile;
        for (uint32_t place = 0; place + 1 < last; place++) {
            bulk_leaf_compare(bulk, work, entries, place, place < first ? first : place + 1, last);
        }
    }
    for (uint32_t i = 0; i < cell->count; i++) {
        const uint32_t ahead = entries[i + 4 < cell->count ? i + 4 : i];
        prefetch_bytes(bulk_list(bulk, ahead), bulk->places * sizeof(uint32_t));
        prefetch_bytes(bulk->ranks + (size_t)ahead * bulk->places,
                       bulk->places * sizeof *bulk->ranks);
        bulk_meet_uppers(bulk, work, entries[i]);
        bulk_merge(bulk, work, entries[i], work->lists + (size_t)i * bulk->places,
                   work->lengths[i]);
    }
    return OMENDB_OK;
}

/* Finding candidates */

static void bulk_find_begin(struct bulk_work *work, uint32_t member)
{
    memset(work->hash, 0xff, ((size_t)work->hash_mask + 1) * sizeof *work->hash);
    work->found_count = 0;
    work->hash[(member * BULK_GOLDEN) >> 8 & work->hash_mask] = member;
}

/* Adds a member to those found unless it is there or is the one that they are found for. */
static void bulk_find(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    const size_t stride = bulk->view.vectors.stride;
    uint32_t at = (member * BULK_GOLDEN) >> 8 & work->hash_mask;

    while (work->hash[at] != GRAPH_NO_ROW && work->hash[at] != member) {
        at = (at + 1) & work->hash_mask;
    }
    if (work->hash[at] == member || work->found_count == bulk->room) {
        return;
    }
    work->hash[at] = member;
    work->vectors[work->found_count] = bulk_vector(bulk, member);
    prefetch_bytes(work->vectors[work->found_count],
                   stride < PREFETCH_MAX_BYTES ? stride : PREFETCH_MAX_BYTES);
    work->found[work->found_count++] = member;
}

static void bulk_find_list(const struct bulk *bulk, struct bulk_work *work, uint32_t of)
{
    const uint32_t *list = bulk_list(bulk, of);

    for (uint32_t i = 0; i < bulk->places; i++) {
        const uint32_t member = graph_slot_load(&list[i]);
        if (member != of) {
            bulk_find(bulk, work, member);
        }
    }
}

/* The links of the level above of the member itself or, where it has none, of the nearest one known
 * that has, with that one. */
static void bulk_find_above(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    uint32_t upper = member, *slots, length;

    for (uint32_t i = 0; bulk->uppers == NULL && i < work->found_count; i++) {
        upper = bulk_is_upper(bulk, upper) ? upper : work->found[i];
    }
    if (bulk->uppers != NULL && !bulk_is_upper(bulk, upper)) {
        upper = bulk->uppers[member];
    }
    if (upper == GRAPH_NO_ROW || !bulk_is_upper(bulk, upper)) {
        return;
    }
    (void)graph_view_slots(&bulk->view, upper, 1, &slots, &length);
    bulk_find(bulk, work, upper);
    for (uint32_t i = 0; i < length; i++) {
        bulk_find(bulk, work, graph_slot_load(&slots[i]));
    }
}

static void bulk_sift(uint64_t *heap, size_t count, size_t at)
{
    const uint64_t key = heap[at];

    for (size_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        child += child + 1 < count && heap[child + 1] < heap[child];
        if (heap[child] >= key) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = key;
}

/* The parts of what was found: the first `own` are the member's list, those up to `kept` the links
 * of the level above. */
struct bulk_parts {
    uint32_t own;
    uint32_t kept;
    uint32_t far; /* where those begin that are candidates however far they are; they end at kept.
                     0: only the farthest of the own list are */
};

static void bulk_sort(uint64_t *keys, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        const uint64_t key = keys[i];
        uint32_t at = i;
        for (; at > 0 && keys[at - 1] > key; at--) {
            keys[at] = keys[at - 1];
        }
        keys[at] = key;
    }
}

/* Makes work->keys a heap of what was found, the nearest on top, and returns its size; what is
 * farther than all of a full own list is left out. Far candidates are sorted in work->far_keys. */
static uint32_t bulk_measure(const struct bulk *bulk, struct bulk_work *work, uint32_t member,
                             struct bulk_parts parts)
{
    uint64_t farthest = parts.own < bulk->places ? GRAPH_KEY_NONE : 0;
    uint32_t count = 0;

    work->far_count = 0;
    bulk_distances(bulk, member, work->found, work->vectors, work->found_count, work->distances);
    for (uint32_t i = 0; i < work->found_count; i++) {
        const uint64_t key = graph_key(work->distances[i], work->found[i] ^ member);
        if (i < parts.own) {
            farthest = key > farthest ? key : farthest;
        }
        if (i < parts.own || key < farthest) {
            work->keys[count++] = key;
        }
        if (i >= parts.far && i < parts.kept) {
            work->far_keys[work->far_count++] = key;
        }
    }
    bulk_sort(work->far_keys, work->far_count);
    if (parts.far == 0 && work->far_count > bulk->places / BULK_FAR_SHARE) {
        const uint32_t left = bulk->places / BULK_FAR_SHARE;
        memmove(work->far_keys, work->far_keys + work->far_count - left,
                left * sizeof *work->far_keys);
        work->far_count = left;
    }
    for (uint32_t i = count / 2; i > 0; i--) {
        bulk_sift(work->keys, count, i - 1);
    }
    return count;
}

/* Choosing */

/* Whether a chosen one is nearer to the candidate, even by the factor, than the owner is. */
static int bulk_is_covered(const struct bulk *bulk, const struct bulk_work *work, uint32_t chosen,
                           uint64_t key, uint32_t candidate, float factor)
{
    float distances[BULK_GROUP];

    for (uint32_t i = 0; i < chosen; i += BULK_GROUP) {
        const uint32_t group = chosen - i < BULK_GROUP ? chosen - i : BULK_GROUP;
        bulk_distances(bulk, candidate, work->chosen + i, work->chosen_vectors + i, group,
                       distances);
        for (uint32_t j = 0; j < group; j++) {
            if (graph_key(distances[j] * factor, work->chosen[i + j] ^ candidate) < key) {
                return 1;
            }
        }
    }
    return 0;
}

static uint32_t bulk_take(const struct bulk *bulk, struct bulk_work *work, uint32_t chosen,
                          uint32_t candidate)
{
    work->chosen[chosen] = candidate;
    work->chosen_vectors[chosen] = bulk_vector(bulk, candidate);
    return chosen + 1;
}

/* Chooses at most bulk->places of the nearest `pool` of the heap of `count` keys and writes them to
 * the member's list. Rejected keys gather behind the shrinking heap, the first one last. At most
 * half of the pool may be at one distance. */
static void bulk_choose(const struct bulk *bulk, struct bulk_work *work, uint32_t member,
                        uint32_t count, uint32_t pool)
{
    uint64_t *keys = work->keys, last = 0;
    uint32_t *list = bulk_list(bulk, member);
    uint32_t chosen = 0, ties = 0, left = count, rejected = count;
    const uint32_t near_limit =
        bulk->places - (work->far_count != 0 ? bulk->places / BULK_FAR_SHARE : 0);

    for (uint32_t seen = 0; seen < pool && left > 0 && chosen < bulk->places;) {
        const uint64_t key = keys[0];
        const uint32_t candidate = graph_key_row(key, member);
        keys[0] = keys[--left];
        bulk_sift(keys, left, 0);
        ties = key >> 32 == last >> 32 ? ties + 1 : 0;
        last = key;
        if (2 * ties >= pool) {
            continue;
        }
        seen++;
        if (chosen < near_limit && !bulk_is_covered(bulk, work, chosen, key, candidate, 1)) {
            chosen = bulk_take(bulk, work, chosen, candidate);
        } else {
            keys[--rejected] = key;
        }
    }
    for (uint32_t i = 0; i < work->far_count && chosen < bulk->places; i++) {
        const uint64_t key = work->far_keys[i];
        const uint32_t candidate = graph_key_row(key, member);
        if (!bulk_is_covered(bulk, work, chosen, key, candidate, 1)) {
            chosen = bulk_take(bulk, work, chosen, candidate);
        }
    }
    while (rejected < count && chosen < bulk->places) {
        const uint64_t key = keys[--count];
        const uint32_t candidate = graph_key_row(key, member);
        if (!bulk_is_covered(bulk, work, chosen, key, candidate, BULK_ALPHA_SQUARE)) {
            chosen = bulk_take(bulk, work, chosen, candidate);
        }
    }
    for (uint32_t i = 0; i < bulk->places; i++) {
        graph_slot_store(&list[i], i < chosen ? work->chosen[i] : member);
    }
}

/* Refining */

static void bulk_refine_member(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    struct bulk_parts parts;
    uint32_t count;

    bulk_find_begin(work, member);
    bulk_find_list(bulk, work, member);
    parts.own = work->found_count;
    parts.far = bulk->is_finished ? 0 : parts.own;
    bulk_find_above(bulk, work, member);
    parts.kept = work->found_count;
    for (uint32_t i = 0; i < parts.own && i < BULK_EXPAND; i++) {
        prefetch_bytes(bulk_list(bulk, work->found[i]), bulk->places * sizeof(uint32_t));
    }
    for (uint32_t i = 0; i < parts.own && i < BULK_EXPAND; i++) {
        bulk_find_list(bulk, work, work->found[i]);
    }
    count = bulk_measure(bulk, work, member, parts);
    bulk_choose(bulk, work, member, count, BULK_POOL);
}

/* In a level that is one leaf every other member is a candidate. */
static void bulk_meet_all(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    bulk_find_begin(work, member);
    for (uint32_t other = 0; other < bulk->count; other++) {
        bulk_find(bulk, work, bulk_member(bulk, other));
    }
    bulk_choose(bulk, work, member, bulk_measure(bulk, work, member, (struct bulk_parts){0}),
                2 * bulk->count);
}

static int bulk_refine_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const uint32_t last = bulk_step_end(bulk, index);

    for (uint32_t i = index * BULK_GRAIN; i < last; i++) {
        const uint32_t member = bulk_member(bulk, i);
        if (bulk->count <= BULK_LEAF) {
            bulk_meet_all(bulk, work, member);
        } else {
            bulk_refine_member(bulk, work, member);
        }
    }
    return OMENDB_OK;
}

/* Accepting: offers of one step are counted first and then written, each member's side by side. */

static int bulk_has(const struct bulk *bulk, uint32_t of, uint32_t member)
{
    const uint32_t *list = bulk_list(bulk, of);

    for (uint32_t i = 0; i < bulk->places && list[i] != of; i++) {
        if (list[i] == member) {
            return 1;
        }
    }
    return 0;
}

static void bulk_offer_member(const struct bulk *bulk, uint32_t member)
{
    const uint32_t *list = bulk_list(bulk, member);

    for (uint32_t i = 0; i < bulk->places && list[i] != member; i++) {
        const uint32_t to = list[i];
        uint32_t place;
        if (bulk_has(bulk, to, member)) {
            continue;
        }
        place = atomic_fetch_add_explicit(&bulk->offer_counts[to], 1, memory_order_relaxed);
        if (bulk->offers != NULL && place < BULK_OFFERS) {
            bulk->offers[bulk->offer_starts[to] + place] = member;
        }
    }
}

static int bulk_offer_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const uint32_t last = bulk_step_end(bulk, index);

    (void)work;
    for (uint32_t i = index * BULK_GRAIN; i < last; i++) {
        const uint32_t member = bulk_member(bulk, i);
        if (i + 1 < last) {
            const uint32_t next = bulk_member(bulk, i + 1);
            const uint32_t *list = bulk_list(bulk, next);
            for (uint32_t j = 0; j < bulk->places && list[j] != next; j++) {
                prefetch_bytes(bulk_list(bulk, list[j]), bulk->places * sizeof *list);
            }
        }
        bulk_offer_member(bulk, member);
    }
    return OMENDB_OK;
}

static int bulk_accept_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const uint32_t last = bulk_step_end(bulk, index);

    for (uint32_t i = index * BULK_GRAIN; i < last; i++) {
        const uint32_t member = bulk_member(bulk, i);
        const size_t first = bulk->offer_starts[member], end = bulk->offer_starts[member + 1];
        struct bulk_parts parts;
        if (first == end) {
            continue;
        }
        bulk_find_begin(work, member);
        bulk_find_list(bulk, work, member);
        parts = (struct bulk_parts){.kept = work->found_count};
        for (size_t at = first; at < end; at++) {
            bulk_find(bulk, work, bulk->offers[at]);
        }
        bulk_choose(bulk, work, member, bulk_measure(bulk, work, member, parts),
                    2 * work->found_count);
    }
    return OMENDB_OK;
}

/* Where the offers to each member begin; counts start again. */
static size_t bulk_start_offers(struct bulk *bulk)
{
    size_t total = 0;

    for (uint32_t member = 0; member < bulk->view.count; member++) {
        const uint32_t count =
            atomic_load_explicit(&bulk->offer_counts[member], memory_order_relaxed);
        bulk->offer_starts[member] = total;
        total += count < BULK_OFFERS ? count : BULK_OFFERS;
        atomic_store_explicit(&bulk->offer_counts[member], 0, memory_order_relaxed);
    }
    bulk->offer_starts[bulk->view.count] = total;
    return total;
}

static int bulk_accept(struct bulk *bulk)
{
    const uint32_t steps = bulk_steps(bulk->count);
    const size_t count = bulk->view.count;
    size_t total = 0;
    int code = OMENDB_NOMEM;

    bulk->offer_counts = bulk_array(bulk, count, sizeof *bulk->offer_counts);
    bulk->offer_starts = bulk_array(bulk, count + 1, sizeof *bulk->offer_starts);
    if (bulk->offer_counts != NULL && bulk->offer_starts != NULL) {
        code = bulk_run(bulk, steps, bulk->count, bulk_offer_step);
    }
    if (code == OMENDB_OK) {
        total = bulk_start_offers(bulk);
        bulk->offers = bulk_array(bulk, total, sizeof *bulk->offers);
        code = bulk->offers != NULL ? bulk_run(bulk, steps, bulk->count, bulk_offer_step)
                                    : OMENDB_NOMEM;
    }
    if (code == OMENDB_OK) {
        code = bulk_run(bulk, steps, bulk->count, bulk_accept_step);
    }
    bulk_array_free(bulk, bulk->offers, total, sizeof *bulk->offers);
    bulk_array_free(bulk, bulk->offer_starts, count + 1, sizeof *bulk->offer_starts);
    bulk_array_free(bulk, bulk->offer_counts, count, sizeof *bulk->offer_counts);
    bulk->offers = NULL;
    bulk->offer_starts = NULL;
    bulk->offer_counts = NULL;
    return code;
}

/* The base */

static int bulk_find_nearest(struct bulk *bulk)
{
    const size_t entries = bulk->entry_count;
    const uint32_t count = bulk->view.count;
    int code;

    bulk->ranks = bulk_array(bulk, memory_multiply(count, bulk->places), sizeof *bulk->ranks);
    bulk->uppers = bulk_array(bulk, count, sizeof *bulk->uppers);
    bulk->upper_ranks = bulk_array(bulk, count, sizeof *bulk->upper_ranks);
    bulk->choices = bulk_array(bulk, entries, sizeof *bulk->choices);
    bulk->entries = bulk_array(bulk, entries, sizeof *bulk->entries);
    bulk->sorted = bulk_array(bulk, entries, sizeof *bulk->sorted);
    code = bulk->ranks != NULL && bulk->uppers != NULL && bulk->upper_ranks != NULL &&
                   bulk->choices != NULL && bulk->entries != NULL && bulk->sorted != NULL
               ? OMENDB_OK
               : OMENDB_NOMEM;
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++) {
        bulk->uppers[i] = GRAPH_NO_ROW;
    }
    for (uint32_t i = 0; i < BULK_REPLICAS && code == OMENDB_OK; i++) {
        code = bulk_split(bulk);
        if (code == OMENDB_OK) {
            code = bulk_run(bulk, bulk->cell_count, bulk->count, bulk_leaf_step);
        }
    }
    bulk_array_free(bulk, bulk->ranks, (size_t)count * bulk->places, sizeof *bulk->ranks);
    bulk_array_free(bulk, bulk->upper_ranks, count, sizeof *bulk->upper_ranks);
    bulk_array_free(bulk, bulk->choices, entries, sizeof *bulk->choices);
    bulk_array_free(bulk, bulk->sorted, entries, sizeof *bulk->sorted);
    bulk->ranks = bulk->upper_ranks = NULL;
    bulk->choices = NULL;
    bulk->sorted = NULL;
    return code;
}

/* Each member once, in the order of the leaves of the last splitting. The cells and entries are not
 * needed any more. */
static int bulk_make_order(struct bulk *bulk)
{
    const size_t words = (size_t)bulk->view.count / 64 + 1;
    uint64_t *seen = memory_zalloc(bulk->memory, words * sizeof *seen);
    uint32_t count = 0;

    bulk->order = bulk_array(bulk, bulk->count, sizeof *bulk->order);
    if (seen != NULL && bulk->order != NULL) {
        for (uint32_t i = 0; i < bulk->entry_count; i++) {
            const uint32_t member = bulk->entries[i];
            if ((seen[member >> 6] >> (member & 63) & 1) == 0) {
                seen[member >> 6] |= UINT64_C(1) << (member & 63);
                bulk->order[count++] = member;
            }
        }
        assert(count == bulk->count);
    }
    memory_free(bulk->memory, seen, words * sizeof *seen);
    return count == bulk->count ? OMENDB_OK : OMENDB_NOMEM;
}

static int bulk_make_nearest(struct bulk *bulk)
{
    int code;

    if (bulk->count > UINT32_MAX / BULK_FAN) {
        return error_set(OMENDB_NOMEM, "%u rows are too many to be linked at once", bulk->count);
    }
    bulk->entry_count = bulk->count * BULK_FAN;
    code = bulk_find_nearest(bulk);
    if (code == OMENDB_OK) {
        code = bulk_make_order(bulk);
    }
    bulk_replace_cells(bulk, NULL, 0, 0);
    bulk_array_free(bulk, bulk->entries, bulk->entry_count, sizeof *bulk->entries);
    bulk->entries = NULL;
    return code;
}

/* Choosing all base lists: those of one leaf among all rows. */
static int bulk_make_base(struct bulk *bulk)
{
    const uint32_t count = bulk->count;
    int code = count > BULK_LEAF ? bulk_make_nearest(bulk) : OMENDB_OK;

    if (code == OMENDB_OK) {
        code = bulk_run(bulk, bulk_steps(count), count, bulk_refine_step);
    }
    if (code == OMENDB_OK) {
        code = bulk_accept(bulk);
    }
    bulk_array_free(bulk, bulk->uppers, bulk->view.count, sizeof *bulk->uppers);
    bulk_array_free(bulk, bulk->order, count, sizeof *bulk->order);
    bulk->uppers = bulk->order = NULL;
    return code;
}

/* Upper levels: rows that have one are inserted one by one, into a graph of nothing but them. */

static int bulk_insert_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
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
static int bulk_clear_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
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

static int bulk_make_graph(struct bulk *bulk)
{
    const uint32_t steps = bulk_steps(bulk->count);
    int code = bulk_run(bulk, steps, bulk->count, bulk_insert_step);

    if (code == OMENDB_OK) {
        code = bulk_run(bulk, steps, 0, bulk_clear_step);
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
static int bulk_verify_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
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
    bulk->random = graph->config.seed;
    bulk->room = (BULK_EXPAND + 1) * places + bulk->view.M + 1;
    bulk->room = bulk->room < places + BULK_OFFERS ? places + BULK_OFFERS : bulk->room;
    bulk->room = bulk->room < BULK_LEAF ? BULK_LEAF : bulk->room;
    return platform_mutex_init(&bulk->mutex);
}

static int bulk_read_vectors(struct bulk *bulk)
{
    int code = OMENDB_OK;

    if (graph_view_verifies(&bulk->view)) {
        code = bulk_run(bulk, bulk_steps(bulk->count), 0, bulk_verify_step);
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
        code = bulk_run(&bulk, bulk_steps(bulk.count), bulk.count, bulk_refine_step);
    }
    if (code == OMENDB_OK && bulk.count != 0) {
        code = bulk_accept(&bulk);
    }
    return bulk_end(&bulk, code);
}

#undef BULK_LEAF
#undef BULK_CELL
#undef BULK_LEADERS
#undef BULK_FAN
#undef BULK_REPLICAS
#undef BULK_ROUNDS
#undef BULK_EXPAND
#undef BULK_POOL
#undef BULK_FAR_SHARE
#undef BULK_OFFERS
#undef BULK_ALPHA
#undef BULK_ALPHA_SQUARE
#undef BULK_GRAIN
#undef BULK_SLICE
#undef BULK_TILE
#undef BULK_TILE_BYTES
#undef BULK_GROUP
#undef BULK_MASK_GROUP
#undef BULK_GOLDEN
