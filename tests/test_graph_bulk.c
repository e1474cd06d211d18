/* test_graph_bulk.c: building a graph at once, from inside: what it finds beside insertion, what
 * data, threads and lack of memory do to it. */
#include "internals.h"

#include "test.h"

#include "graph_fixture.h"

#define THREADS 3

static const struct graph_bulk_terms alone;

/* Of queries that are the same for all graphs of one seed. */
static double recall_of_seed(struct fixture *fixture)
{
    random_state = 99;
    return recall_of(fixture, EF, NULL);
}

TEST(small_graphs_find_every_row)
{
    static const uint32_t sizes[] = {0, 1, 2, 3, 17, 64, 257, 1024, 1025, 1026};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct fixture fixture;
        struct graph_view view;
        start_random(i);
        CHECK(fixture_load(&fixture, OMENDB_L2, sizes[i]));
        CHECK_EQ_INT(graph_bulk(fixture.graph, &alone), OMENDB_OK);
        CHECK_EQ_INT(defects(&fixture), 0);
        graph_get_view(fixture.graph, &view);
        for (uint32_t row = 0; row < sizes[i]; row++) {
            struct graph_hit hits[EF];
            size_t count;
            CHECK_EQ_INT(search_with_ef(&view, fixture.scratch, rows_at(&view.vectors, row), EF,
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
        CHECK(fixture_load(&bulk, metrics[i], 8000));
        CHECK_EQ_INT(graph_bulk(bulk.graph, &alone), OMENDB_OK);
        bulk_recall = recall_of_seed(&bulk);
        start_random(1);
        CHECK(fixture_load(&inserted, metrics[i], 8000));
        CHECK(fixture_insert(&inserted, 0, inserted.rows));
        recall = recall_of_seed(&inserted);
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
        CHECK(fixture_create_typed(fixture, OMENDB_B1, OMENDB_HAMMING, 128, 16, 5000));
        graph_set_count(fixture->graph, 5000);
        for (uint32_t row = 0; row < 5000; row++) {
            uint8_t *bits = graph_vector(fixture->graph, row);
            for (size_t i = 0; i < 16; i++) {
                bits[i] = (uint8_t)(random_below(256) & (i < 8 ? 255u : row % 50));
            }
        }
        CHECK(way == 0 ? graph_bulk(fixture->graph, &alone) == OMENDB_OK
                       : fixture_insert(fixture, 0, 5000));
        graph_get_view(fixture->graph, &view);
        for (uint32_t query = 0; query < 300; query++) {
            struct graph_hit hits[EF], exact[HITS];
            uint8_t bits[16];
            size_t count, exact_count = 0;
            for (size_t i = 0; i < 16; i++) {
                bits[i] = (uint8_t)(random_below(256) & (i < 8 ? 255u : query % 50));
            }
            CHECK_EQ_INT(
                search_with_ef(&view, fixture->scratch, bits, EF, NULL, hits, &count, NULL),
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

TEST(copies_of_one_vector_stay_reachable)
{
    static const uint32_t one_in[] = {0, 2, 50};

    for (size_t i = 0; i < sizeof one_in / sizeof one_in[0]; i++) {
        struct fixture fixture;
        start_random(3);
        CHECK(fixture_load_copies(&fixture, 20000, one_in[i]));
        CHECK_EQ_INT(graph_bulk(fixture.graph, &alone), OMENDB_OK);
        check_copies_are_reachable(&fixture);
        CHECK(fixture_destroy(&fixture));
    }
}

TEST(points_among_copies_are_found)
{
    struct fixture fixture;

    start_random(4);
    CHECK(fixture_load_copies(&fixture, 12000, 4));
    CHECK_EQ_INT(graph_bulk(fixture.graph, &alone), OMENDB_OK);
    CHECK(found_rows(&fixture, 4) > 2700);
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
        if (search_with_ef(&view, fixture->scratch, vector, EF, NULL, hits, &count, NULL) ==
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
        CHECK(fixture_load(&fixture, OMENDB_L2, 12000));
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
    CHECK(fixture_load(&fixture, OMENDB_L2, 6000));
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

TEST(one_thread_builds_the_same_graph_twice)
{
    struct fixture fixtures[2];

    for (int i = 0; i < 2; i++) {
        start_random(8);
        CHECK(fixture_load(&fixtures[i], OMENDB_L2, 5000));
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
    CHECK(fixture_load(&one, OMENDB_L2, 6000));
    CHECK_EQ_INT(graph_bulk(one.graph, &alone), OMENDB_OK);
    start_random(9);
    CHECK(fixture_load(&many, OMENDB_L2, 6000));
    CHECK_EQ_INT(graph_bulk(many.graph, &terms), OMENDB_OK);
    CHECK_EQ_INT(defects(&many), 0);
    CHECK(recall_of_seed(&many) > recall_of_seed(&one) - 0.01);
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
        CHECK(fixture_load(&fixture, OMENDB_L2, sizes[i]));
        CHECK(fixture_insert(&fixture, 0, fixture.rows));
        before = recall_of_seed(&fixture);
        CHECK_EQ_INT(graph_refine(fixture.graph, &alone), OMENDB_OK);
        after = recall_of_seed(&fixture);
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
    CHECK(fixture_load(&fixture, OMENDB_L2, 5000));
    CHECK_EQ_INT(graph_bulk(fixture.graph, &terms), OMENDB_OK);
    CHECK(stopper.is_ascending);
    CHECK(fixture_destroy(&fixture));
    calls = stopper.calls;
    CHECK(calls > 10);
    for (uint64_t stop_at = 1; stop_at <= calls; stop_at += 3) {
        stopper = (struct stopper){.stop_at = stop_at};
        start_random(11);
        CHECK(fixture_load(&fixture, OMENDB_L2, 5000));
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
        CHECK(fixture_load(&fixture, OMENDB_INNER_PRODUCT, sizes[i]));
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
        CHECK(fixture_load(&whole, OMENDB_INNER_PRODUCT, sizes[i]));
        CHECK_EQ_INT(graph_bulk(whole.graph, &alone), OMENDB_OK);
        CHECK(recall_of_seed(&fixture) > recall_of_seed(&whole) - 0.01);
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
        CHECK(fixture_load(&fixture, OMENDB_L2, 1500));
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
    CHECK(fixture_load(&fixture, OMENDB_L2, 50000));
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
