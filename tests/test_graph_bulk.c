/* test_graph_bulk.c: building a graph at once, from inside: what it finds beside insertion, what
 * data, threads and lack of memory do to it. */
#include "omendb.c"

#include "test.h"

#include <stdlib.h>

#define DIM      16
#define LINKS    8 /* M */
#define HITS     10
#define CLUSTERS 50
#define EF       64
#define THREADS  3

static const struct graph_effort effort = {.ef = EF, .k = HITS};

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
    size_t dim;
};

static int fixture_create(struct fixture *fixture, const struct kernel *kernel, size_t dim,
                          size_t vector_bytes, uint32_t rows)
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
    config.kernel = kernel;
    fixture->rows = rows;
    fixture->dim = dim;
    fixture->scratch = graph_scratch_create(&fixture->memory);
    if (fixture->scratch == NULL ||
        graph_create(&fixture->memory, &config, NULL, NULL, 0, &fixture->graph) != OMENDB_OK ||
        graph_reserve(fixture->graph, rows) != OMENDB_OK) {
        return 0;
    }
    graph_set_count(fixture->graph, rows);
    return 1;
}

static float *fixture_vector(struct fixture *fixture, uint32_t row)
{
    return (float *)(void *)graph_vector(fixture->graph, row);
}

/* A graph of random f32 vectors in which nothing is linked. */
static int fixture_fill(struct fixture *fixture, omendb_metric metric, uint32_t rows)
{
    if (!fixture_create(fixture, kernels_for(OMENDB_F32, metric), DIM, DIM * sizeof(float), rows)) {
        return 0;
    }
    for (uint32_t row = 0; row < rows; row++) {
        random_vector(fixture_vector(fixture, row));
    }
    return 1;
}

/* 1 if all memory came back. */
static int fixture_destroy(struct fixture *fixture)
{
    graph_scratch_destroy(fixture->scratch);
    graph_destroy(fixture->graph);
    return fixture->memory.used == 0;
}

static const struct graph_bulk_terms alone;

static int fixture_insert(struct fixture *fixture)
{
    int code = OMENDB_OK;

    for (uint32_t row = 0; row < fixture->rows && code == OMENDB_OK; row++) {
        code = graph_insert(fixture->graph, fixture->scratch, row);
    }
    return code;
}

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

/* Mean recall at HITS of 200 random queries against the scan; -1 on a failed call. distances: the
 * mean computed; may be NULL. */
static double recall_of(struct fixture *fixture, double *distances)
{
    struct graph_hit walked[EF], exact[HITS];
    struct graph_counters counters = {0, 0};
    struct graph_view view;
    size_t shared = 0, wanted = 0;

    graph_get_view(fixture->graph, &view);
    random_state = 99;
    for (int query = 0; query < 200; query++) {
        float vector[DIM];
        size_t walked_count, exact_count = 0;
        random_vector(vector);
        if (graph_search(&view, fixture->scratch, vector, &effort, NULL, walked, &walked_count,
                         &counters) != OMENDB_OK ||
            graph_scan(&view, fixture->scratch, vector, 0, view.count, HITS, NULL, exact,
                       &exact_count, NULL) != OMENDB_OK ||
            walked_count < exact_count) {
            return -1;
        }
        shared +=
            shared_rows(exact, exact_count, walked, walked_count < HITS ? walked_count : HITS);
        wanted += exact_count;
    }
    if (distances != NULL) {
        *distances = (double)counters.distances / 200;
    }
    return wanted == 0 ? 1 : (double)shared / (double)wanted;
}

TEST(small_graphs_find_every_row)
{
    static const uint32_t sizes[] = {0, 1, 2, 3, 17, 64, 257, 1024, 1025, 1026};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct fixture fixture;
        struct graph_view view;
        start_random(i);
        CHECK(fixture_fill(&fixture, OMENDB_L2, sizes[i]));
        CHECK_EQ_INT(graph_bulk(fixture.graph, &alone), OMENDB_OK);
        CHECK_EQ_INT(defects(&fixture), 0);
        graph_get_view(fixture.graph, &view);
        for (uint32_t row = 0; row < sizes[i]; row++) {
            struct graph_hit hits[EF];
            size_t count;
            CHECK_EQ_INT(graph_search(&view, fixture.scratch, rows_at(&view.vectors, row), &effort,
                                      NULL, hits, &count, NULL),
                         OMENDB_OK);
            CHECK_EQ_INT(count, sizes[i] < EF ? sizes[i] : EF);
            CHECK_EQ_INT(hits[0].row, row);
        }
        CHECK(fixture_destroy(&fixture));
    }
}

TEST(every_metric_has_the_recall_of_insertion)
{
    static const omendb_metric metrics[] = {OMENDB_L2, OMENDB_COSINE, OMENDB_INNER_PRODUCT};

    for (size_t i = 0; i < sizeof metrics / sizeof metrics[0]; i++) {
        struct fixture bulk, inserted;
        double bulk_recall, recall;
        start_random(1);
        CHECK(fixture_fill(&bulk, metrics[i], 8000));
        CHECK_EQ_INT(graph_bulk(bulk.graph, &alone), OMENDB_OK);
        bulk_recall = recall_of(&bulk, NULL);
        start_random(1);
        CHECK(fixture_fill(&inserted, metrics[i], 8000));
        CHECK_EQ_INT(fixture_insert(&inserted), OMENDB_OK);
        recall = recall_of(&inserted, NULL);
        printf("metric %d: recall %.4f in bulk, %.4f inserted\n", (int)metrics[i], bulk_recall,
               recall);
        CHECK(bulk_recall >= recall - (metrics[i] == OMENDB_INNER_PRODUCT ? 0.03 : 0.005));
        CHECK_EQ_INT(defects(&bulk), 0);
        CHECK(fixture_destroy(&bulk));
        CHECK(fixture_destroy(&inserted));
    }
}

TEST(bits_have_the_recall_of_insertion)
{
    struct fixture fixtures[2];
    double found[2] = {0, 0};

    for (int way = 0; way < 2; way++) {
        struct fixture *fixture = &fixtures[way];
        struct graph_view view;
        start_random(2);
        CHECK(fixture_create(fixture, kernels_for(OMENDB_B1, OMENDB_HAMMING), 128, 16, 5000));
        for (uint32_t row = 0; row < 5000; row++) {
            uint8_t *bits = graph_vector(fixture->graph, row);
            for (size_t i = 0; i < 16; i++) {
                bits[i] = (uint8_t)(random_below(256) & (i < 8 ? 255u : row % 50));
            }
        }
        CHECK_EQ_INT(way == 0 ? graph_bulk(fixture->graph, &alone) : fixture_insert(fixture),
                     OMENDB_OK);
        graph_get_view(fixture->graph, &view);
        for (uint32_t query = 0; query < 300; query++) {
            struct graph_hit hits[EF], exact[HITS];
            uint8_t bits[16];
            size_t count, exact_count = 0;
            for (size_t i = 0; i < 16; i++) {
                bits[i] = (uint8_t)(random_below(256) & (i < 8 ? 255u : query % 50));
            }
            CHECK_EQ_INT(
                graph_search(&view, fixture->scratch, bits, &effort, NULL, hits, &count, NULL),
                OMENDB_OK);
            CHECK_EQ_INT(graph_scan(&view, fixture->scratch, bits, 0, 5000, HITS, NULL, exact,
                                    &exact_count, NULL),
                         OMENDB_OK);
            for (size_t i = 0; i < HITS; i++) { /* ties are as good as one another */
                found[way] += hits[i].distance <= exact[HITS - 1].distance;
            }
        }
        CHECK_EQ_INT(defects(fixture), 0);
        CHECK(fixture_destroy(fixture));
    }
    CHECK(found[0] >= found[1] - 0.01 * 300 * HITS);
}

/* Every `one_in`-th row is a point of its own, the others are copies of one vector. */
static int fill_with_copies(struct fixture *fixture, uint32_t rows, uint32_t one_in)
{
    float copy[DIM];

    if (!fixture_fill(fixture, OMENDB_L2, rows)) {
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

TEST(copies_of_one_vector_stay_reachable)
{
    static const uint32_t one_in[] = {0, 2, 50};

    for (size_t i = 0; i < sizeof one_in / sizeof one_in[0]; i++) {
        struct fixture fixture;
        struct graph_view view;
        struct graph_hit hits[EF];
        struct graph_counters counters = {0, 0};
        size_t count;
        start_random(3);
        CHECK(fill_with_copies(&fixture, 20000, one_in[i]));
        CHECK_EQ_INT(graph_bulk(fixture.graph, &alone), OMENDB_OK);
        CHECK_EQ_INT(defects(&fixture), 0);
        graph_get_view(fixture.graph, &view);
        CHECK_EQ_INT(graph_search(&view, fixture.scratch, rows_at(&view.vectors, 1), &effort, NULL,
                                  hits, &count, &counters),
                     OMENDB_OK);
        CHECK_EQ_INT(count, EF);
        CHECK(hits[0].distance == 0 && hits[EF - 1].distance == 0);
        CHECK(counters.distances < 5000);
        CHECK(fixture_destroy(&fixture));
    }
}

TEST(points_among_copies_are_found)
{
    struct fixture fixture;
    struct graph_view view;
    uint32_t found = 0;

    start_random(4);
    CHECK(fill_with_copies(&fixture, 12000, 4));
    CHECK_EQ_INT(graph_bulk(fixture.graph, &alone), OMENDB_OK);
    graph_get_view(fixture.graph, &view);
    for (uint32_t row = 0; row < 12000; row += 4) {
        struct graph_hit hits[EF];
        size_t count;
        CHECK_EQ_INT(graph_search(&view, fixture.scratch, rows_at(&view.vectors, row), &effort,
                                  NULL, hits, &count, NULL),
                     OMENDB_OK);
        found += count > 0 && hits[0].row == row;
    }
    CHECK(found > 2700);
    CHECK(fixture_destroy(&fixture));
}

/* The share of 500 rows that a walk for their own vector finds. */
static double found_of(struct fixture *fixture)
{
    struct graph_view view;
    uint32_t found = 0;

    graph_get_view(fixture->graph, &view);
    for (uint32_t i = 0; i < 500; i++) {
        const uint32_t row = random_below(fixture->rows);
        const void *vector = rows_at(&view.vectors, row);
        struct graph_hit hits[EF];
        size_t count;
        if (graph_search(&view, fixture->scratch, vector, &effort, NULL, hits, &count, NULL) ==
            OMENDB_OK) {
            found += count == EF && hits[0].distance == view.kernel->pair(vector, vector, DIM);
        }
    }
    return found / 500.0;
}

TEST(far_clusters_are_connected)
{
    static const uint32_t clusters[] = {2, 37, 3000};

    for (size_t i = 0; i < sizeof clusters / sizeof clusters[0]; i++) {
        struct fixture fixture;
        start_random(5);
        CHECK(fixture_fill(&fixture, OMENDB_L2, 12000));
        for (uint32_t row = 0; row < fixture.rows; row++) {
            fixture_vector(&fixture, row)[row % clusters[i] % DIM] +=
                1000.0f * (float)(1 + row % clusters[i] / DIM);
        }
        CHECK_EQ_INT(graph_bulk(fixture.graph, &alone), OMENDB_OK);
        CHECK_EQ_INT(defects(&fixture), 0);
        CHECK(found_of(&fixture) > 0.99);
        CHECK(fixture_destroy(&fixture));
    }
}

/* Each row is half as far from the origin as the one before, over and over: balls around random
 * leaders hold nearly everything. Some are no numbers or infinite. */
TEST(hostile_vectors_end)
{
    struct fixture fixture;

    start_random(6);
    CHECK(fixture_fill(&fixture, OMENDB_L2, 6000));
    for (uint32_t row = 0; row < fixture.rows; row++) {
        float *vector = fixture_vector(&fixture, row);
        for (size_t i = 0; i < DIM; i++) {
            vector[i] = ldexpf(i == row % DIM ? 1.0f : 0.0f, 60 - (int)(row % 120));
        }
        if (row % 100 == 0) {
            vector[3] = row % 200 == 0 ? NAN : INFINITY;
        }
    }
    CHECK_EQ_INT(graph_bulk(fixture.graph, &alone), OMENDB_OK);
    CHECK_EQ_INT(defects(&fixture), 0);
    CHECK(fixture_destroy(&fixture));
}

static int same_graph(const struct fixture *a, const struct fixture *b)
{
    struct graph_view view_a, view_b;
    int same;

    graph_get_view(a->graph, &view_a);
    graph_get_view(b->graph, &view_b);
    same = view_a.entry_row == view_b.entry_row && view_a.upper_count == view_b.upper_count;
    for (uint32_t row = 0; row < a->rows; row++) {
        same &= memcmp(rows_at(&view_a.links, row), rows_at(&view_b.links, row),
                       2 * LINKS * sizeof(uint32_t)) == 0;
    }
    for (uint32_t block = 0; block < view_a.upper_count; block++) {
        same &= memcmp(rows_at(&view_a.upper_links, block), rows_at(&view_b.upper_links, block),
                       LINKS * sizeof(uint32_t)) == 0;
    }
    return same;
}

TEST(one_thread_builds_the_same_graph_twice)
{
    struct fixture fixtures[2];

    for (int i = 0; i < 2; i++) {
        start_random(8);
        CHECK(fixture_fill(&fixtures[i], OMENDB_L2, 5000));
        CHECK_EQ_INT(graph_bulk(fixtures[i].graph, &alone), OMENDB_OK);
    }
    CHECK(same_graph(&fixtures[0], &fixtures[1]));
    CHECK(fixture_destroy(&fixtures[0]));
    CHECK(fixture_destroy(&fixtures[1]));
}

/* Threads that share the calls of one job. */
struct job {
    uint64_t count;
    int (*fn)(void *context, uint64_t index);
    void *context;
    _Atomic uint64_t next;
    _Atomic int code;
};

static void *job_run(void *argument)
{
    struct job *job = argument;

    for (uint64_t index; (index = atomic_fetch_add(&job->next, 1)) < job->count;) {
        const int code = job->fn(job->context, index);
        if (code != OMENDB_OK) {
            atomic_store(&job->code, code);
        }
    }
    return NULL;
}

static int in_threads(void *runner, uint64_t count, int (*fn)(void *context, uint64_t index),
                      void *context)
{
    struct job job = {.count = count, .fn = fn, .context = context};
    struct platform_thread threads[THREADS];

    (void)runner;
    for (int i = 0; i < THREADS; i++) {
        if (platform_thread_start(&threads[i], job_run, &job) != OMENDB_OK) {
            abort();
        }
    }
    for (int i = 0; i < THREADS; i++) {
        platform_thread_join(&threads[i]);
    }
    return atomic_load(&job.code);
}

TEST(threads_build_as_good_a_graph)
{
    const struct graph_bulk_terms terms = {.parallel = in_threads};
    struct fixture one, many;

    start_random(9);
    CHECK(fixture_fill(&one, OMENDB_L2, 6000));
    CHECK_EQ_INT(graph_bulk(one.graph, &alone), OMENDB_OK);
    start_random(9);
    CHECK(fixture_fill(&many, OMENDB_L2, 6000));
    CHECK_EQ_INT(graph_bulk(many.graph, &terms), OMENDB_OK);
    CHECK_EQ_INT(defects(&many), 0);
    CHECK(recall_of(&many, NULL) > recall_of(&one, NULL) - 0.01);
    CHECK_EQ_INT(graph_refine(many.graph, &terms), OMENDB_OK);
    CHECK_EQ_INT(defects(&many), 0);
    CHECK(fixture_destroy(&one));
    CHECK(fixture_destroy(&many));
}

TEST(refining_makes_walks_no_worse)
{
    static const uint32_t sizes[] = {1, 2, 300, 8000};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct fixture fixture;
        double before, after;
        start_random(10);
        CHECK(fixture_fill(&fixture, OMENDB_L2, sizes[i]));
        CHECK_EQ_INT(fixture_insert(&fixture), OMENDB_OK);
        before = recall_of(&fixture, NULL);
        CHECK_EQ_INT(graph_refine(fixture.graph, &alone), OMENDB_OK);
        after = recall_of(&fixture, NULL);
        CHECK_EQ_INT(defects(&fixture), 0);
        CHECK(after >= before - 0.002);
        CHECK(fixture_destroy(&fixture));
    }
}

struct stopper {
    uint64_t calls, stop_at, last_done;
    int is_ascending;
};

static int stopper_progress(void *context, uint64_t done, uint64_t total)
{
    struct stopper *stopper = context;

    stopper->is_ascending &= done >= stopper->last_done && done <= total;
    stopper->last_done = done;
    return ++stopper->calls == stopper->stop_at;
}

TEST(progress_ascends_and_stops_the_building)
{
    struct stopper stopper = {.is_ascending = 1};
    const struct graph_bulk_terms terms = {.progress = stopper_progress, .context = &stopper};
    struct fixture fixture;
    uint64_t calls;

    start_random(11);
    CHECK(fixture_fill(&fixture, OMENDB_L2, 5000));
    CHECK_EQ_INT(graph_bulk(fixture.graph, &terms), OMENDB_OK);
    CHECK(stopper.is_ascending);
    CHECK(fixture_destroy(&fixture));
    calls = stopper.calls;
    CHECK(calls > 10);
    for (uint64_t stop_at = 1; stop_at <= calls; stop_at += 3) {
        stopper = (struct stopper){.stop_at = stop_at};
        start_random(11);
        CHECK(fixture_fill(&fixture, OMENDB_L2, 5000));
        CHECK_EQ_INT(graph_bulk(fixture.graph, &terms), OMENDB_DONE);
        CHECK_EQ_INT(stopper.calls, stop_at);
        CHECK(fixture_destroy(&fixture));
    }
}

/* Links that lead from held rows or to them. */
static uint32_t links_of_held(const struct fixture *fixture, const struct graph_held *held)
{
    struct graph_view view;
    uint32_t links = 0;

    graph_get_view(fixture->graph, &view);
    for (uint32_t row = 0; row < fixture->rows; row++) {
        for (uint32_t level = 0; level <= *rows_at(&view.levels, row); level++) {
            uint32_t *slots, length;
            links += graph_view_slots(&view, row, level, &slots, &length) != OMENDB_OK;
            for (uint32_t i = 0; i < length; i++) {
                links +=
                    slots[i] != row && (graph_is_held(held, row) || graph_is_held(held, slots[i]));
            }
        }
    }
    return links;
}

TEST(held_rows_are_linked_when_they_are_inserted)
{
    static const uint32_t sizes[] = {40, 1000, 1060, 6000};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct graph_bulk_terms terms = {.held = {(uint32_t)i, 20, sizes[i] / 21}};
        struct fixture fixture, whole;
        struct graph_view view;
        start_random(14);
        CHECK(fixture_fill(&fixture, OMENDB_INNER_PRODUCT, sizes[i]));
        CHECK_EQ_INT(graph_bulk(fixture.graph, &terms), OMENDB_OK);
        CHECK_EQ_INT(links_of_held(&fixture, &terms.held), 0);
        graph_get_view(fixture.graph, &view);
        CHECK(!graph_is_held(&terms.held, view.entry_row));
        /* graph_check may name them, too, as one defect. */
        CHECK(defects(&fixture) - terms.held.count <= 1);
        for (uint32_t at = 0; at < terms.held.count; at++) {
            CHECK_EQ_INT(
                graph_insert(fixture.graph, fixture.scratch, graph_held_row(&terms.held, at)),
                OMENDB_OK);
        }
        CHECK_EQ_INT(graph_repair(fixture.graph, fixture.scratch, sizes[i]), OMENDB_OK);
        CHECK_EQ_INT(defects(&fixture), 0);
        start_random(14);
        CHECK(fixture_fill(&whole, OMENDB_INNER_PRODUCT, sizes[i]));
        CHECK_EQ_INT(graph_bulk(whole.graph, &alone), OMENDB_OK);
        CHECK(recall_of(&fixture, NULL) > recall_of(&whole, NULL) - 0.01);
        CHECK(fixture_destroy(&fixture));
        CHECK(fixture_destroy(&whole));
    }
}

TEST(each_allocation_may_fail)
{
    uint64_t failing = 1;
    int code = OMENDB_NOMEM;

    for (; code == OMENDB_NOMEM; failing++) {
        struct fixture fixture;
        start_random(12);
        CHECK(fixture_fill(&fixture, OMENDB_L2, 1500));
        fixture.hooks.failing = atomic_load(&fixture.hooks.calls) + failing;
        code = graph_bulk(fixture.graph, &alone);
        CHECK(code == OMENDB_OK || code == OMENDB_NOMEM);
        fixture.hooks.failing = 0;
        CHECK(code == OMENDB_NOMEM || defects(&fixture) == 0);
        CHECK(fixture_destroy(&fixture));
    }
    CHECK(failing > 20);
}

TEST(extra_memory_is_bounded)
{
    struct fixture fixture;
    uint64_t before;

    start_random(13);
    CHECK(fixture_fill(&fixture, OMENDB_L2, 50000));
    before = fixture.memory.used;
    CHECK_EQ_INT(graph_bulk(fixture.graph, &alone), OMENDB_OK);
    CHECK(fixture.memory.peak - before < 50000 * (6 * LINKS + 60) + (1 << 19));
    CHECK(fixture_destroy(&fixture));
}

TEST_MAIN(small_graphs_find_every_row, every_metric_has_the_recall_of_insertion,
          bits_have_the_recall_of_insertion, copies_of_one_vector_stay_reachable,
          points_among_copies_are_found, far_clusters_are_connected, hostile_vectors_end,
          one_thread_builds_the_same_graph_twice, threads_build_as_good_a_graph,
          refining_makes_walks_no_worse, progress_ascends_and_stops_the_building,
          held_rows_are_linked_when_they_are_inserted, each_allocation_may_fail,
          extra_memory_is_bounded)
