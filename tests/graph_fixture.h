/* graph_fixture.h: a graph of random vectors, for the white-box tests of building and walking, with
 * measures of how good it is. Allocations can be made to fail. Included after internals.h and
 * test.h.
 *
 * Vectors are small clusters of random points, made anew by each test from a fixed seed. */
#ifndef OMENDB_GRAPH_FIXTURE_H
#define OMENDB_GRAPH_FIXTURE_H

#include <stdlib.h>

#define DIM      16
#define LINKS    8 /* M */
#define HITS     10
#define CLUSTERS 50
#define EF       64
#define QUERIES  200

/* ------------------------------------------------------------------------------------------------
 * chance */

static uint64_t random_state;

static uint32_t random_below(uint32_t bound)
{
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((random_state >> 33) % bound);
}

static float random_unit(void)
{
    return (float)random_below(1u << 24) / (float)(1u << 24);
}

static float centers[CLUSTERS][DIM];

static void start_random(uint64_t seed)
{
    random_state = seed;
    for (size_t i = 0; i < CLUSTERS; i++) {
        for (size_t j = 0; j < DIM; j++) {
            centers[i][j] = random_unit();
        }
    }
}

static void random_vector(float *vector)
{
    const float *center = centers[random_below(CLUSTERS)];

    for (size_t j = 0; j < DIM; j++) {
        vector[j] = center[j] + 0.3f * (random_unit() - 0.5f);
    }
}

/* ------------------------------------------------------------------------------------------------
 * the graph */

/* The host's hooks: malloc, of which the n-th call fails. */
struct hooks {
    _Atomic uint64_t calls;
    uint64_t failing; /* 0: none */
};

static int hooks_fail(struct hooks *hooks)
{
    return atomic_fetch_add(&hooks->calls, 1) + 1 == hooks->failing;
}

static void *hooks_alloc(void *context, size_t size)
{
    return hooks_fail(context) ? NULL : malloc(size);
}

static void *hooks_resize(void *context, void *block, size_t old_size, size_t new_size)
{
    (void)old_size;
    return hooks_fail(context) ? NULL : realloc(block, new_size);
}

static void hooks_release(void *context, void *block, size_t size)
{
    (void)context;
    (void)size;
    free(block);
}

/* One graph and what is needed to use it. */
struct fixture {
    struct memory memory;
    struct hooks hooks;
    struct graph *graph;
    struct graph_scratch *scratch;
    uint32_t rows;
};

static int fixture_create_typed(struct fixture *fixture, omendb_scalar scalar, omendb_metric metric,
                                size_t dim, size_t vector_bytes, uint32_t rows)
{
    const omendb_allocator allocator = {sizeof allocator, &fixture->hooks, hooks_alloc,
                                        hooks_resize, hooks_release};
    struct graph_config config = {0};

    memset(&fixture->hooks, 0, sizeof fixture->hooks);
    memory_init(&fixture->memory, &allocator, 0);
    config.M = LINKS;
    config.ef_construction = 100;
    config.seed = 7;
    config.dim = dim;
    config.vector_bytes = vector_bytes;
    config.kernel = kernels_for(scalar, metric);
    fixture->rows = rows;
    fixture->scratch = graph_scratch_create(&fixture->memory);
    if (fixture->scratch == NULL ||
        graph_create(&fixture->memory, &config, NULL, NULL, 0, &fixture->graph) != OMENDB_OK) {
        return 0;
    }
    return graph_reserve(fixture->graph, rows) == OMENDB_OK;
}

static int fixture_create(struct fixture *fixture, omendb_metric metric, uint32_t rows)
{
    return fixture_create_typed(fixture, OMENDB_F32, metric, DIM, DIM * sizeof(float), rows);
}

/* 1 if all memory came back. */
static int fixture_destroy(struct fixture *fixture)
{
    graph_scratch_destroy(fixture->scratch);
    graph_destroy(fixture->graph);
    return fixture->memory.used == 0;
}

static float *fixture_vector(struct fixture *fixture, uint32_t row)
{
    return (float *)(void *)graph_vector(fixture->graph, row);
}

/* A graph of random f32 vectors in which nothing is linked. */
static int fixture_load(struct fixture *fixture, omendb_metric metric, uint32_t rows)
{
    if (!fixture_create(fixture, metric, rows)) {
        return 0;
    }
    for (uint32_t row = 0; row < rows; row++) {
        random_vector(fixture_vector(fixture, row));
    }
    graph_set_count(fixture->graph, rows);
    return 1;
}

/* The same, but every `one_in`-th row is a point of its own, the others are copies of one vector.
 */
static int fixture_load_copies(struct fixture *fixture, uint32_t rows, uint32_t one_in)
{
    float copy[DIM];

    if (!fixture_load(fixture, OMENDB_L2, rows)) {
        return 0;
    }
    random_vector(copy);
    for (uint32_t row = 0; row < rows; row++) {
        if (one_in == 0 || row % one_in != 0) {
            memcpy(fixture_vector(fixture, row), copy, sizeof copy);
        }
    }
    return 1;
}

static int fixture_insert(struct fixture *fixture, uint32_t first, uint32_t last)
{
    int code = OMENDB_OK;

    graph_set_count(fixture->graph, last);
    for (uint32_t row = first; row < last && code == OMENDB_OK; row++) {
        code = graph_insert(fixture->graph, fixture->scratch, row);
    }
    return code == OMENDB_OK;
}

/* ------------------------------------------------------------------------------------------------
 * measures */

static void count_report(void *context, const char *sentence)
{
    *(int *)context += sentence[0] != '\0';
}

/* How many defects graph_check names, and how many rows cannot be reached. */
static uint32_t defects(struct fixture *fixture)
{
    struct graph_view view;
    uint64_t *reached = calloc(fixture->rows / 64 + 1, sizeof *reached);
    uint32_t *queue = calloc(fixture->rows + 1, sizeof *queue);
    uint32_t found = 0;
    int count = 0, code;

    graph_get_view(fixture->graph, &view);
    code = graph_check(&view, fixture->rows, &fixture->memory, count_report, &count);
    if (code == OMENDB_OK && fixture->rows != 0) {
        code = graph_view_reach(&view, view.entry_row, reached, queue, &found);
    }
    free(queue);
    free(reached);
    return (uint32_t)count + (code != OMENDB_OK) + (fixture->rows - found);
}

static int same_graph(const struct fixture *a, const struct fixture *b)
{
    struct graph_view view_a, view_b;
    int same;

    graph_get_view(a->graph, &view_a);
    graph_get_view(b->graph, &view_b);
    same = a->rows == b->rows && view_a.entry_row == view_b.entry_row &&
           view_a.entry_level == view_b.entry_level && view_a.upper_count == view_b.upper_count;
    for (uint32_t row = 0; same && row < a->rows; row++) {
        same = *rows_at(&view_a.levels, row) == *rows_at(&view_b.levels, row) &&
               memcmp(rows_at(&view_a.links, row), rows_at(&view_b.links, row),
                      2 * LINKS * sizeof(uint32_t)) == 0;
    }
    for (uint32_t block = 0; same && block < view_a.upper_count; block++) {
        same = memcmp(rows_at(&view_a.upper_links, block), rows_at(&view_b.upper_links, block),
                      LINKS * sizeof(uint32_t)) == 0;
    }
    return same;
}

/* graph_search by ef alone. */
static int search_with_ef(const struct graph_view *view, struct graph_scratch *scratch,
                          const void *query, size_t ef, const struct graph_filter *filter,
                          struct graph_hit *hits, size_t *count, struct graph_counters *counters)
{
    const struct graph_effort effort = {.ef = ef};

    return graph_search(view, scratch, query, &effort, filter, hits, count, counters);
}

static size_t shared_rows(const struct graph_hit *a, size_t a_count, const struct graph_hit *b,
                          size_t b_count)
{
    size_t shared = 0;

    for (size_t i = 0; i < a_count; i++) {
        for (size_t j = 0; j < b_count; j++) {
            shared += a[i].row == b[j].row;
        }
    }
    return shared;
}

static int in_order(const struct graph_hit *hits, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        if (hits[i].distance < hits[i - 1].distance ||
            (hits[i].distance == hits[i - 1].distance && hits[i].row <= hits[i - 1].row)) {
            return 0;
        }
    }
    return 1;
}

/* Mean recall at HITS of QUERIES random queries against the scan of the same view; -1 on a failed
 * call, on fewer hits than the scan has, or on hits out of order. */
static double recall_of(struct fixture *fixture, size_t ef, const struct graph_filter *filter)
{
    struct graph_hit *walked = malloc(ef * sizeof *walked);
    struct graph_hit exact[HITS];
    struct graph_view view;
    size_t shared = 0, wanted = 0;
    int is_good = 1;

    graph_get_view(fixture->graph, &view);
    for (int query = 0; query < QUERIES && is_good; query++) {
        float vector[DIM];
        size_t count, exact_count = 0;
        random_vector(vector);
        is_good = search_with_ef(&view, fixture->scratch, vector, ef, filter, walked, &count,
                                 NULL) == OMENDB_OK &&
                  graph_scan(&view, fixture->scratch, vector, 0, view.count, HITS, filter, exact,
                             &exact_count, NULL) == OMENDB_OK &&
                  count >= exact_count && in_order(walked, count);
        shared +=
            is_good ? shared_rows(exact, exact_count, walked, count < HITS ? count : HITS) : 0;
        wanted += exact_count;
    }
    free(walked);
    return !is_good ? -1 : wanted == 0 ? 1 : (double)shared / (double)wanted;
}

/* Of a graph of copies in which row 1 is one. */
static void check_copies_are_reachable(struct fixture *fixture)
{
    struct graph_view view;
    struct graph_hit hits[EF];
    struct graph_counters counters = {0, 0};
    size_t count;

    CHECK_EQ_INT(defects(fixture), 0);
    graph_get_view(fixture->graph, &view);
    CHECK_EQ_INT(search_with_ef(&view, fixture->scratch, rows_at(&view.vectors, 1), EF, NULL, hits,
                                &count, &counters),
                 OMENDB_OK);
    CHECK_EQ_INT(count, EF);
    CHECK(hits[0].distance == 0 && hits[EF - 1].distance == 0);
    CHECK(counters.distances < 5000);
}

/* How many of the rows 0, step, 2 * step, ... a search for their own vector finds first. */
static uint32_t found_rows(struct fixture *fixture, uint32_t step)
{
    struct graph_view view;
    uint32_t found = 0;

    graph_get_view(fixture->graph, &view);
    for (uint32_t row = 0; row < fixture->rows; row += step) {
        struct graph_hit hits[EF];
        size_t count;
        found += search_with_ef(&view, fixture->scratch, rows_at(&view.vectors, row), EF, NULL,
                                hits, &count, NULL) == OMENDB_OK &&
                 count > 0 && hits[0].row == row;
    }
    return found;
}

#endif
