/* test_graph.c: the graph from inside: what it finds, what it survives, what it takes over. */
#include "internals.h"

#include "test.h"

#include "graph_fixture.h"

#define MAX_ROWS 20000
#define ENOUGH   0.97 /* recall that every healthy graph of these sets has at EF */

static int fixture_fill(struct fixture *fixture, omendb_metric metric, uint32_t rows)
{
    return fixture_load(fixture, metric, rows) && fixture_insert(fixture, 0, rows);
}

TEST(an_empty_graph_finds_nothing)
{
    struct fixture fixture;
    struct graph_view view;
    struct graph_hit hits[HITS];
    float vector[DIM] = {0};
    size_t count = 1;

    CHECK(fixture_create(&fixture, OMENDB_L2, 0));
    graph_get_view(fixture.graph, &view);
    CHECK_EQ_INT(search_with_ef(&view, fixture.scratch, vector, HITS, NULL, hits, &count, NULL),
                 OMENDB_OK);
    CHECK_EQ_INT(count, 0);
    CHECK_EQ_INT(defects(&fixture), 0);
    CHECK(fixture_destroy(&fixture));
}

TEST(small_graphs_find_every_row)
{
    for (uint32_t rows = 1; rows <= 70; rows += rows < 5 ? 1 : 13) {
        struct fixture fixture;
        start_random(rows);
        CHECK(fixture_fill(&fixture, OMENDB_L2, rows));
        CHECK(recall_of(&fixture, 100, NULL) == 1);
        CHECK_EQ_INT(defects(&fixture), 0);
        CHECK(fixture_destroy(&fixture));
    }
}

TEST(every_metric_has_good_recall)
{
    static const omendb_metric metrics[] = {OMENDB_L2, OMENDB_COSINE, OMENDB_INNER_PRODUCT};

    for (size_t i = 0; i < sizeof metrics / sizeof metrics[0]; i++) {
        struct fixture fixture;
        start_random(1);
        CHECK(fixture_fill(&fixture, metrics[i], 5000));
        CHECK(recall_of(&fixture, EF, NULL) > (metrics[i] == OMENDB_INNER_PRODUCT ? 0.9 : ENOUGH));
        if (metrics[i] != OMENDB_INNER_PRODUCT) {
            CHECK_EQ_INT(defects(&fixture), 0);
        }
        CHECK(fixture_destroy(&fixture));
    }
}

TEST(a_scan_is_exact_and_merges_into_earlier_hits)
{
    struct fixture fixture;
    struct graph_view view;
    struct graph_hit once[HITS], twice[HITS];
    float vector[DIM];
    size_t once_count = 0, twice_count = 0;
    uint32_t nearer = 0;

    start_random(2);
    CHECK(fixture_fill(&fixture, OMENDB_L2, 500));
    graph_get_view(fixture.graph, &view);
    random_vector(vector);
    CHECK_EQ_INT(
        graph_scan(&view, fixture.scratch, vector, 0, 500, HITS, NULL, once, &once_count, NULL),
        OMENDB_OK);
    for (uint32_t first = 0; first < 600; first += 77) {
        CHECK_EQ_INT(graph_scan(&view, fixture.scratch, vector, first, first + 77, HITS, NULL,
                                twice, &twice_count, NULL),
                     OMENDB_OK);
    }
    CHECK_EQ_INT(once_count, HITS);
    CHECK_EQ_INT(twice_count, HITS);
    CHECK_EQ_INT(memcmp(once, twice, sizeof once), 0);
    for (uint32_t row = 0; row < 500; row++) {
        nearer +=
            view.kernel->pair(vector, rows_at(&view.vectors, row), DIM) < once[HITS - 1].distance;
    }
    CHECK_EQ_INT(nearer, HITS - 1);
    CHECK(fixture_destroy(&fixture));
}

TEST(a_wide_walk_equals_a_scan)
{
    struct fixture fixture;
    struct graph_view view;
    struct graph_hit *walked = calloc(6000, sizeof *walked), *exact = calloc(6000, sizeof *exact);
    float vector[DIM];
    size_t walked_count, exact_count = 0;

    start_random(3);
    CHECK(fixture_fill(&fixture, OMENDB_L2, 3000));
    graph_get_view(fixture.graph, &view);
    random_vector(vector);
    CHECK_EQ_INT(
        search_with_ef(&view, fixture.scratch, vector, 6000, NULL, walked, &walked_count, NULL),
        OMENDB_OK);
    CHECK_EQ_INT(
        graph_scan(&view, fixture.scratch, vector, 0, 3000, 6000, NULL, exact, &exact_count, NULL),
        OMENDB_OK);
    CHECK_EQ_INT(walked_count, 3000);
    CHECK_EQ_INT(exact_count, 3000);
    CHECK_EQ_INT(memcmp(walked, exact, 3000 * sizeof *walked), 0);
    CHECK_EQ_INT(
        search_with_ef(&view, fixture.scratch, vector, 2500, NULL, walked, &walked_count, NULL),
        OMENDB_OK);
    CHECK_EQ_INT(walked_count, 2500);
    CHECK(shared_rows(walked, 2500, exact, 2500) > 2490);
    free(walked);
    free(exact);
    CHECK(fixture_destroy(&fixture));
}

struct share {
    uint32_t of_100;
};

static int share_visible(const void *context, uint32_t row)
{
    const struct share *share = context;
    return row * UINT32_C(2654435761) >> 8 & 1023
               ? (row * UINT32_C(40503) >> 4) % 100 < share->of_100
               : 0;
}

TEST(filters_hide_rows_and_the_walk_goes_through_them)
{
    static const uint32_t shares[] = {99, 70, 30, 5, 1, 0};
    struct fixture fixture;

    start_random(4);
    CHECK(fixture_fill(&fixture, OMENDB_L2, 5000));
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        const struct share share = {shares[i]};
        const struct graph_filter filter = {.row_limit = GRAPH_NO_ROW,
                                            .excluded_row = GRAPH_NO_ROW,
                                            .visible = share_visible,
                                            .context = &share};
        CHECK(recall_of(&fixture, EF, &filter) > ENOUGH);
        CHECK(share.of_100 == 0 || recall_of(&fixture, 3000, &filter) > 0.999);
    }
    CHECK(fixture_destroy(&fixture));
}

TEST(filters_exclude_a_row_and_those_beyond_a_limit)
{
    struct fixture fixture;
    struct graph_view view;
    struct graph_hit hits[EF];
    struct graph_filter filter = {.row_limit = GRAPH_NO_ROW, .excluded_row = 17};
    size_t count;

    start_random(5);
    CHECK(fixture_fill(&fixture, OMENDB_L2, 1000));
    graph_get_view(fixture.graph, &view);
    CHECK_EQ_INT(search_with_ef(&view, fixture.scratch, rows_at(&view.vectors, 17), EF, &filter,
                                hits, &count, NULL),
                 OMENDB_OK);
    CHECK_EQ_INT(count, EF);
    for (size_t i = 0; i < count; i++) {
        CHECK(hits[i].row != 17);
    }
    filter.row_limit = 40;
    CHECK_EQ_INT(search_with_ef(&view, fixture.scratch, rows_at(&view.vectors, 17), EF, &filter,
                                hits, &count, NULL),
                 OMENDB_OK);
    CHECK_EQ_INT(count, 39);
    CHECK(recall_of(&fixture, EF, &filter) == 1);
    CHECK(fixture_destroy(&fixture));
}

/* Element types and metrics under which walks have a stretch. */
struct kind {
    omendb_scalar scalar;
    omendb_metric metric;
    float origin;
    float enough; /* a stretch with good recall */
};

#define KIND_BYTES 32

static const struct kind kinds[] = {
    {OMENDB_F32, OMENDB_L2, 0, 1.6f},     {OMENDB_F32, OMENDB_COSINE, 0, 1.6f},
    {OMENDB_U8, OMENDB_L2, 0, 1.6f},      {OMENDB_I8, OMENDB_INNER_PRODUCT, -300000, 1.5f},
    {OMENDB_B1, OMENDB_HAMMING, 0, 1.6f},
};

/* KIND_BYTES of a cluster of floats, bytes or bits. */
static void kind_vector(const struct kind *kind, void *vector)
{
    uint8_t *bytes = vector;
    const uint32_t cluster = random_below(CLUSTERS);

    for (size_t i = 0; i < KIND_BYTES; i++) {
        const uint8_t center = (uint8_t)((cluster * 37 + i + 1) * (cluster + i * 101 + 7) >> 3);
        bytes[i] = kind->scalar == OMENDB_B1
                       ? (uint8_t)(center ^ (random_below(3) == 0) << random_below(8))
                       : (uint8_t)(center / 2 + random_below(100));
    }
    if (kind->scalar == OMENDB_F32) {
        float values[KIND_BYTES / sizeof(float)];
        for (size_t i = 0; i < KIND_BYTES / sizeof(float); i++) {
            values[i] = (float)bytes[i];
        }
        memcpy(vector, values, sizeof values);
    }
}

static int fixture_fill_kind(struct fixture *fixture, const struct kind *kind, uint32_t rows)
{
    const size_t dim = kind->scalar == OMENDB_F32  ? KIND_BYTES / sizeof(float)
                       : kind->scalar == OMENDB_B1 ? KIND_BYTES * 8
                                                   : KIND_BYTES;

    if (!fixture_create_typed(fixture, kind->scalar, kind->metric, dim, KIND_BYTES, rows)) {
        return 0;
    }
    for (uint32_t row = 0; row < rows; row++) {
        kind_vector(kind, graph_vector(fixture->graph, row));
    }
    return fixture_insert(fixture, 0, rows);
}

TEST(a_huge_stretch_is_a_walk_by_ef)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct fixture fixture;
        struct graph_view view;
        start_random(20 + i);
        CHECK(fixture_fill_kind(&fixture, &kinds[i], 3000));
        graph_get_view(fixture.graph, &view);
        for (size_t ef = HITS; ef <= 2500; ef *= 5) {
            const struct graph_effort far = {
                .ef = ef, .k = HITS, .stretch = 1e30f, .origin = kinds[i].origin};
            const struct graph_effort infinite = {
                .ef = ef, .k = ef, .stretch = INFINITY, .origin = kinds[i].origin};
            static struct graph_hit plain[2500], stretched[2500];
            uint8_t vector[KIND_BYTES];
            size_t plain_count, count;
            kind_vector(&kinds[i], vector);
            CHECK_EQ_INT(
                search_with_ef(&view, fixture.scratch, vector, ef, NULL, plain, &plain_count, NULL),
                OMENDB_OK);
            CHECK_EQ_INT(
                graph_search(&view, fixture.scratch, vector, &far, NULL, stretched, &count, NULL),
                OMENDB_OK);
            CHECK_EQ_INT(count, plain_count);
            CHECK_EQ_INT(memcmp(plain, stretched, count * sizeof *plain), 0);
            CHECK_EQ_INT(graph_search(&view, fixture.scratch, vector, &infinite, NULL, stretched,
                                      &count, NULL),
                         OMENDB_OK);
            CHECK_EQ_INT(count, plain_count);
            CHECK_EQ_INT(memcmp(plain, stretched, count * sizeof *plain), 0);
        }
        CHECK(fixture_destroy(&fixture));
    }
}

/* Mean recall at HITS and distances of 100 walks with the effort; -1 when one of them found fewer
 * than it should, or in disorder. */
static double recall_with_effort(struct fixture *fixture, const struct kind *kind,
                                 const struct graph_effort *effort,
                                 const struct graph_filter *filter, uint64_t *distances)
{
    static struct graph_hit walked[3000];
    struct graph_hit exact[HITS];
    struct graph_counters counters = {0, 0};
    struct graph_view view;
    size_t shared = 0, wanted = 0;

    graph_get_view(fixture->graph, &view);
    for (int query = 0; query < 100; query++) {
        uint8_t vector[KIND_BYTES];
        size_t count, exact_count = 0;
        kind_vector(kind, vector);
        if (graph_search(&view, fixture->scratch, vector, effort, filter, walked, &count,
                         &counters) != OMENDB_OK ||
            graph_scan(&view, fixture->scratch, vector, 0, view.count, HITS, filter, exact,
                       &exact_count, NULL) != OMENDB_OK ||
            count < exact_count) {
            return -1;
        }
        for (size_t i = 0; i < count; i++) {
            if ((i > 0 && walked[i].distance < walked[i - 1].distance) ||
                (filter != NULL && !filter->visible(filter->context, walked[i].row))) {
                return -1;
            }
        }
        shared += shared_rows(exact, exact_count, walked, HITS);
        wanted += exact_count;
    }
    *distances = counters.distances;
    return (double)shared / (double)wanted;
}

TEST(a_stretch_stops_walks_early_and_finds_k_rows)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct fixture fixture;
        struct graph_effort effort = {.ef = 1000, .k = HITS, .origin = kinds[i].origin};
        uint64_t all, enough, least;
        start_random(30 + i);
        CHECK(fixture_fill_kind(&fixture, &kinds[i], 5000));
        CHECK(recall_with_effort(&fixture, &kinds[i], &effort, NULL, &all) > 0.99);
        effort.stretch = kinds[i].enough;
        CHECK(recall_with_effort(&fixture, &kinds[i], &effort, NULL, &enough) > 0.9);
        effort.stretch = 1;
        CHECK(recall_with_effort(&fixture, &kinds[i], &effort, NULL, &least) > 0.3);
        CHECK(least < enough && enough < all);
        effort.ef = 2900; /* heaps instead of an array: the same way */
        CHECK(recall_with_effort(&fixture, &kinds[i], &effort, NULL, &least) > 0.3);
        CHECK(least < all);
        CHECK(fixture_destroy(&fixture));
    }
}

TEST(the_cap_does_not_matter_to_a_walk_that_a_stretch_ends)
{
    struct fixture fixture;
    struct graph_view view;
    const struct graph_effort narrow = {.ef = 500, .k = HITS, .stretch = 1.2f},
                              wide = {.ef = 2900, .k = HITS, .stretch = 1.2f};

    start_random(40);
    CHECK(fixture_fill_kind(&fixture, &kinds[2], 5000));
    graph_get_view(fixture.graph, &view);
    for (int query = 0; query < 100; query++) {
        static struct graph_hit few[500], many[2900];
        struct graph_counters few_counters = {0, 0}, many_counters = {0, 0};
        uint8_t vector[KIND_BYTES];
        size_t few_count, many_count;
        kind_vector(&kinds[2], vector);
        CHECK_EQ_INT(graph_search(&view, fixture.scratch, vector, &narrow, NULL, few, &few_count,
                                  &few_counters),
                     OMENDB_OK);
        CHECK_EQ_INT(graph_search(&view, fixture.scratch, vector, &wide, NULL, many, &many_count,
                                  &many_counters),
                     OMENDB_OK);
        CHECK(few_count < 500);
        CHECK_EQ_INT(few_counters.distances, many_counters.distances);
        CHECK_EQ_INT(memcmp(few, many, HITS * sizeof *few), 0);
    }
    CHECK(fixture_destroy(&fixture));
}

TEST(what_is_dropped_beyond_the_bound_changes_neither_the_walk_nor_the_wanted_rows)
{
    enum { WANTED = 3 * HITS };
    struct fixture fixture;
    struct graph_view view;
    const struct graph_effort all = {.ef = 500, .k = HITS, .stretch = 1.2f},
                              wanted = {.ef = 500, .k = HITS, .stretch = 1.2f, .wanted = WANTED};
    size_t dropped = 0;

    start_random(41);
    CHECK(fixture_fill_kind(&fixture, &kinds[2], 5000));
    graph_get_view(fixture.graph, &view);
    for (int query = 0; query < 100; query++) {
        static struct graph_hit every[500], nearest[500];
        struct graph_counters every_counters = {0, 0}, nearest_counters = {0, 0};
        uint8_t vector[KIND_BYTES];
        size_t every_count, nearest_count;
        kind_vector(&kinds[2], vector);
        CHECK_EQ_INT(graph_search(&view, fixture.scratch, vector, &all, NULL, every, &every_count,
                                  &every_counters),
                     OMENDB_OK);
        CHECK_EQ_INT(graph_search(&view, fixture.scratch, vector, &wanted, NULL, nearest,
                                  &nearest_count, &nearest_counters),
                     OMENDB_OK);
        CHECK_EQ_INT(every_counters.distances, nearest_counters.distances);
        CHECK(nearest_count >= (every_count < WANTED ? every_count : WANTED));
        CHECK_EQ_INT(memcmp(every, nearest,
                            (nearest_count < WANTED ? nearest_count : WANTED) * sizeof *every),
                     0);
        dropped += every_count - nearest_count;
    }
    CHECK(dropped > 0);
    CHECK(fixture_destroy(&fixture));
}

TEST(a_stretch_counts_from_the_rows_that_a_filter_shows)
{
    static const uint32_t shares[] = {70, 30, 5, 1};

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct fixture fixture;
        const struct graph_effort effort = {
            .ef = 1000, .k = HITS, .stretch = kinds[i].enough, .origin = kinds[i].origin};
        start_random(50 + i);
        CHECK(fixture_fill_kind(&fixture, &kinds[i], 5000));
        for (size_t j = 0; j < sizeof shares / sizeof shares[0]; j++) {
            const struct share share = {shares[j]};
            const struct graph_filter filter = {.row_limit = GRAPH_NO_ROW,
                                                .excluded_row = GRAPH_NO_ROW,
                                                .visible = share_visible,
                                                .context = &share};
            uint64_t distances;
            CHECK(recall_with_effort(&fixture, &kinds[i], &effort, &filter, &distances) > 0.9);
        }
        CHECK(fixture_destroy(&fixture));
    }
}

static int fill_with_copies(struct fixture *fixture, uint32_t rows, uint32_t one_in)
{
    return fixture_load_copies(fixture, rows, one_in) && fixture_insert(fixture, 0, rows);
}

TEST(copies_of_one_vector_stay_reachable)
{
    static const uint32_t one_in[] = {0, 2, 50};

    for (size_t i = 0; i < sizeof one_in / sizeof one_in[0]; i++) {
        struct fixture fixture;
        struct graph_view view;
        struct graph_hit hits[EF];
        size_t count;
        start_random(6);
        CHECK(fill_with_copies(&fixture, MAX_ROWS / 2, one_in[i]));
        check_copies_are_reachable(&fixture);
        graph_get_view(fixture.graph, &view);
        CHECK_EQ_INT(search_with_ef(&view, fixture.scratch, rows_at(&view.vectors, 1), EF, NULL,
                                    hits, &count, NULL),
                     OMENDB_OK);
        CHECK_EQ_INT(hits[0].row, one_in[i] != 0);
        CHECK(fixture_destroy(&fixture));
    }
}

TEST(points_among_copies_are_found)
{
    struct fixture fixture;

    start_random(7);
    CHECK(fill_with_copies(&fixture, 8000, 4));
    CHECK(found_rows(&fixture, 4) > 1900);
    CHECK(fixture_destroy(&fixture));
}

TEST(one_thread_builds_the_same_graph_twice)
{
    struct fixture a, b;

    start_random(8);
    CHECK(fixture_fill(&a, OMENDB_L2, 2000));
    start_random(8);
    CHECK(fixture_create(&b, OMENDB_L2, 100)); /* grows step by step */
    for (uint32_t row = 0; row < 2000; row++) {
        CHECK_EQ_INT(graph_reserve(b.graph, row + 1), OMENDB_OK);
        random_vector(fixture_vector(&b, row));
        CHECK(fixture_insert(&b, row, row + 1));
    }
    b.rows = 2000;
    CHECK(same_graph(&a, &b));
    CHECK_EQ_INT(defects(&b), 0);
    CHECK(fixture_destroy(&a));
    CHECK(fixture_destroy(&b));
}

TEST(levels_thin_out_by_M)
{
    struct fixture fixture;
    struct graph_view view;
    uint32_t at_least[3] = {0, 0, 0};

    CHECK(fixture_create(&fixture, OMENDB_L2, MAX_ROWS));
    graph_set_count(fixture.graph, MAX_ROWS);
    graph_get_view(fixture.graph, &view);
    for (uint32_t row = 0; row < MAX_ROWS; row++) {
        for (uint32_t level = 0; level < 3; level++) {
            at_least[level] += *rows_at(&view.levels, row) >= level;
        }
    }
    CHECK(at_least[1] > MAX_ROWS / LINKS * 0.9 && at_least[1] < MAX_ROWS / LINKS * 1.1);
    CHECK(at_least[2] > MAX_ROWS / LINKS / LINKS * 0.7 &&
          at_least[2] < MAX_ROWS / LINKS / LINKS * 1.3);
    CHECK(fixture_destroy(&fixture));
}

/* Several threads insert the rows r with r % parts == part; others search meanwhile. */
struct worker {
    struct fixture *fixture;
    uint32_t part;
    uint32_t parts;
    _Atomic int *stop;
    int failed;
    struct platform_thread thread;
};

static void *worker_insert(void *argument)
{
    struct worker *worker = argument;
    struct graph_scratch *scratch = graph_scratch_create(&worker->fixture->memory);
    const uint32_t rows = atomic_load(&worker->fixture->graph->count);

    for (uint32_t row = worker->part; row < rows; row += worker->parts) {
        if (row % 8 != 0 || row >= rows / 2) {
            worker->failed |= graph_insert(worker->fixture->graph, scratch, row) != OMENDB_OK;
        }
    }
    graph_scratch_destroy(scratch);
    return NULL;
}

static void *worker_search(void *argument)
{
    struct worker *worker = argument;
    struct graph_scratch *scratch = graph_scratch_create(&worker->fixture->memory);

    while (!atomic_load(worker->stop)) {
        struct graph_view view;
        struct graph_hit hits[EF];
        size_t count;
        graph_get_view(worker->fixture->graph, &view);
        worker->failed |= search_with_ef(&view, scratch, rows_at(&view.vectors, worker->part), EF,
                                         NULL, hits, &count, NULL) != OMENDB_OK;
        worker->failed |= count == 0;
        platform_yield();
    }
    graph_scratch_destroy(scratch);
    return NULL;
}

static int insert_and_search_in_threads(struct fixture *fixture)
{
    struct worker writers[3], readers[2];
    _Atomic int stop = 0;
    int failed = 0;

    for (uint32_t i = 0; i < 2; i++) {
        readers[i] = (struct worker){.fixture = fixture, .part = i, .stop = &stop};
        failed |= platform_thread_start(&readers[i].thread, worker_search, &readers[i]);
    }
    for (uint32_t i = 0; i < 3; i++) {
        writers[i] = (struct worker){.fixture = fixture, .part = i, .parts = 3};
        failed |= platform_thread_start(&writers[i].thread, worker_insert, &writers[i]);
    }
    for (uint32_t i = 0; i < 3; i++) {
        platform_thread_join(&writers[i].thread);
        failed |= writers[i].failed;
    }
    atomic_store(&stop, 1);
    for (uint32_t i = 0; i < 2; i++) {
        platform_thread_join(&readers[i].thread);
        failed |= readers[i].failed;
    }
    return !failed;
}

TEST(rows_are_inserted_and_searched_by_many_threads)
{
    struct fixture fixture;

    start_random(9);
    CHECK(fixture_load(&fixture, OMENDB_L2, 3000));
    for (uint32_t row = 0; row < 1500; row += 8) {
        CHECK_EQ_INT(graph_insert(fixture.graph, fixture.scratch, row), OMENDB_OK);
    }
    CHECK(insert_and_search_in_threads(&fixture));
    CHECK_EQ_INT(graph_repair(fixture.graph, fixture.scratch, 3000), OMENDB_OK);
    CHECK_EQ_INT(defects(&fixture), 0);
    CHECK(recall_of(&fixture, EF, NULL) > ENOUGH);
    CHECK(fixture_destroy(&fixture));
}

TEST(a_cut_graph_knows_nothing_of_later_rows)
{
    struct fixture fixture;

    start_random(10);
    CHECK(fixture_fill(&fixture, OMENDB_L2, 3000));
    struct graph_view view;
    graph_get_view(fixture.graph, &view);
    fixture.rows = view.entry_row + 1 > 2000 ? view.entry_row + 1 : 2000;
    graph_cut(fixture.graph, fixture.rows);
    for (uint32_t row = 0; row < fixture.rows; row++) {
        for (uint32_t level = 0; level <= *rows_at(&view.levels, row); level++) {
            uint32_t *slots, length;
            CHECK_EQ_INT(graph_view_slots(&view, row, level, &slots, &length), OMENDB_OK);
            for (uint32_t i = 0; i < length; i++) {
                CHECK(slots[i] < fixture.rows);
            }
        }
    }
    CHECK_EQ_INT(graph_repair(fixture.graph, fixture.scratch, fixture.rows), OMENDB_OK);
    CHECK_EQ_INT(defects(&fixture), 0);
    CHECK(fixture_destroy(&fixture));
}

struct grower {
    struct fixture *fixture;
    _Atomic int *stop;
    int failed;
};

/* Searches what is there so far; what was inserted before the view must be found. */
static void *grower_search(void *argument)
{
    struct grower *grower = argument;
    struct graph_scratch *scratch = graph_scratch_create(&grower->fixture->memory);

    while (!atomic_load(grower->stop)) {
        struct graph_view view;
        struct graph_hit hits[EF];
        size_t count;
        graph_get_view(grower->fixture->graph, &view);
        if (view.entry_row != GRAPH_NO_ROW) {
            grower->failed |= search_with_ef(&view, scratch, rows_at(&view.vectors, view.entry_row),
                                             EF, NULL, hits, &count, NULL) != OMENDB_OK;
            grower->failed |= count == 0 || hits[0].distance != 0;
        }
    }
    graph_scratch_destroy(scratch);
    return NULL;
}

TEST(a_graph_grows_under_its_readers)
{
    struct fixture fixture;
    _Atomic int stop = 0;
    struct grower grower = {&fixture, &stop, 0};
    struct platform_thread thread;

    start_random(10);
    CHECK(fixture_create(&fixture, OMENDB_L2, 0));
    CHECK_EQ_INT(platform_thread_start(&thread, grower_search, &grower), OMENDB_OK);
    for (uint32_t row = 0; row < 3000; row++) {
        CHECK_EQ_INT(graph_reserve(fixture.graph, row + 1), OMENDB_OK);
        random_vector(fixture_vector(&fixture, row));
        CHECK(fixture_insert(&fixture, row, row + 1));
    }
    atomic_store(&stop, 1);
    platform_thread_join(&thread);
    CHECK(!grower.failed);
    fixture.rows = 3000;
    CHECK_EQ_INT(defects(&fixture), 0);
    CHECK(recall_of(&fixture, EF, NULL) > ENOUGH);
    CHECK(fixture_destroy(&fixture));
}

/* `to` takes over the rows of `from` that old_to_new keeps. */
static int adopt(struct fixture *from, struct fixture *to, const uint32_t *old_to_new,
                 uint32_t kept)
{
    struct graph_view view;

    graph_get_view(from->graph, &view);
    if (graph_adopt_begin(to->graph, &view, old_to_new, kept) != OMENDB_OK) {
        return 0;
    }
    for (uint32_t row = 0; row < view.count; row++) {
        if (old_to_new[row] != GRAPH_NO_ROW) {
            memcpy(fixture_vector(to, old_to_new[row]), rows_at(&view.vectors, row),
                   DIM * sizeof(float));
        }
    }
    for (uint32_t first = 0; first < view.count; first += 700) {
        const uint32_t last = view.count - first < 700 ? view.count : first + 700;
        if (graph_adopt_rows(to->graph, &view, old_to_new, to->scratch, first, last) != OMENDB_OK) {
            return 0;
        }
    }
    to->rows = kept;
    return graph_adopt_end(to->graph) == OMENDB_OK;
}

TEST(taking_over_everything_is_a_copy)
{
    static uint32_t same[2000];
    struct fixture from, to;

    start_random(11);
    CHECK(fixture_fill(&from, OMENDB_L2, 2000));
    CHECK(fixture_create(&to, OMENDB_L2, 0));
    for (uint32_t row = 0; row < 2000; row++) {
        same[row] = row;
    }
    CHECK(adopt(&from, &to, same, 2000));
    CHECK(same_graph(&from, &to));
    CHECK_EQ_INT(defects(&to), 0);
    CHECK(fixture_destroy(&from));
    CHECK(fixture_destroy(&to));
}

/* Takes over about `of_100` percent of the rows, and inserts new ones afterwards. */
static void check_adoption(struct fixture *from, uint32_t of_100, double wanted)
{
    static uint32_t old_to_new[MAX_ROWS];
    struct fixture to;
    uint32_t kept = 0;

    for (uint32_t row = 0; row < from->rows; row++) {
        old_to_new[row] = random_below(100) < of_100 ? kept++ : GRAPH_NO_ROW;
    }
    CHECK(fixture_create(&to, OMENDB_L2, 0));
    CHECK(adopt(from, &to, old_to_new, kept));
    CHECK_EQ_INT(defects(&to), 0);
    CHECK(recall_of(&to, EF, NULL) >= wanted);
    CHECK_EQ_INT(graph_reserve(to.graph, kept + 500), OMENDB_OK);
    for (uint32_t row = kept; row < kept + 500; row++) {
        random_vector(fixture_vector(&to, row));
    }
    CHECK(fixture_insert(&to, kept, kept + 500));
    to.rows = kept + 500;
    CHECK_EQ_INT(graph_repair(to.graph, to.scratch, to.rows), OMENDB_OK);
    CHECK_EQ_INT(defects(&to), 0);
    CHECK(recall_of(&to, EF, NULL) >= wanted);
    CHECK(fixture_destroy(&to));
}

TEST(taking_over_a_part_keeps_recall_and_reach)
{
    struct fixture from;
    double recall;

    start_random(12);
    CHECK(fixture_fill(&from, OMENDB_L2, 4000));
    recall = recall_of(&from, EF, NULL);
    check_adoption(&from, 95, recall - 0.01);
    check_adoption(&from, 70, recall - 0.01);
    check_adoption(&from, 20, recall - 0.03);
    check_adoption(&from, 1, 0.9);
    check_adoption(&from, 0, 0.9);
    CHECK(fixture_destroy(&from));
}

TEST(taking_over_copies_keeps_reach)
{
    struct fixture from;

    start_random(13);
    CHECK(fill_with_copies(&from, 4000, 3));
    check_adoption(&from, 70, 0);
    check_adoption(&from, 10, 0);
    CHECK(fixture_destroy(&from));
}

static void hostile_fill(void *bytes, size_t words, uint32_t bound)
{
    uint32_t *numbers = bytes;

    for (size_t i = 0; i < words; i++) {
        numbers[i] = random_below(10) == 0 ? random_below(UINT32_MAX) * 2 + 1 : random_below(bound);
    }
}

static struct rows_view hostile_rows(uint8_t **chunk, size_t rows, size_t stride)
{
    struct rows_view view;

    *chunk = calloc(rows, stride);
    view.chunks = chunk;
    view.shift = 31;
    view.mask = GRAPH_ROW_MASK;
    view.stride = stride;
    return view;
}

/* A view as of a file, all of whose numbers were replaced at random. */
static void hostile_view(struct graph_view *view, uint8_t **chunks, uint32_t rows)
{
    memset(view, 0, sizeof *view);
    view->count = rows;
    view->upper_count = rows / 2;
    view->M = LINKS;
    view->links_per_row = 2 * LINKS;
    view->dim = DIM;
    view->kernel = kernels_for(OMENDB_F32, OMENDB_L2);
    view->vectors = hostile_rows(&chunks[0], rows, DIM * sizeof(float));
    view->links = hostile_rows(&chunks[1], rows, 2 * LINKS * sizeof(uint32_t));
    view->upper_index = hostile_rows(&chunks[2], rows, sizeof(uint32_t));
    view->upper_links = hostile_rows(&chunks[3], rows / 2, LINKS * sizeof(uint32_t));
    view->levels = hostile_rows(&chunks[4], rows, 1);
    hostile_fill(chunks[0], (size_t)rows * DIM, UINT32_MAX); /* NaN and infinity among them */
    hostile_fill(chunks[1], (size_t)rows * 2 * LINKS, rows);
    hostile_fill(chunks[2], rows, rows / 2);
    hostile_fill(chunks[3], (size_t)rows / 2 * LINKS, rows);
    for (uint32_t row = 0; row < rows; row++) {
        chunks[4][row] = (uint8_t)random_below(row % 2 ? 4 : 256);
    }
    view->entry_row = random_below(8) == 0 ? rows + random_below(100) : random_below(rows);
    view->entry_level = random_below(2) ? random_below(5) : random_below(UINT32_MAX);
}

TEST(numbers_of_a_damaged_file_are_bounded)
{
    struct fixture fixture;
    int defect_count = 0;

    CHECK(fixture_create(&fixture, OMENDB_L2, 0));
    for (uint32_t seed = 1; seed <= 100; seed++) {
        uint8_t *chunks[5];
        const struct graph_effort stretched = {.ef = EF, .k = HITS, .stretch = 1.2f};
        struct graph_view view;
        struct graph_hit hits[EF];
        float vector[DIM];
        size_t count;
        start_random(seed);
        hostile_view(&view, chunks, 50 + random_below(500));
        random_vector(vector);
        CHECK_EQ_INT(search_with_ef(&view, fixture.scratch, vector, EF, NULL, hits, &count, NULL),
                     OMENDB_OK);
        for (size_t i = 0; i < count; i++) {
            CHECK(hits[i].row < view.count);
        }
        CHECK_EQ_INT(
            graph_search(&view, fixture.scratch, vector, &stretched, NULL, hits, &count, NULL),
            OMENDB_OK);
        for (size_t i = 0; i < count; i++) {
            CHECK(hits[i].row < view.count);
        }
        CHECK_EQ_INT(graph_check(&view, view.count, &fixture.memory, count_report, &defect_count),
                     OMENDB_CORRUPT);
        for (size_t i = 0; i < 5; i++) {
            free(chunks[i]);
        }
    }
    CHECK(defect_count > 100);
    CHECK(fixture_destroy(&fixture));
}

/* A file of which every block but the last is verified, so that each touch looks at the bits. */
static void verified_file(struct block_file *file, _Atomic uint64_t *verified, size_t words,
                          uint64_t size)
{
    for (size_t i = 0; i < words; i++) {
        verified[i] = UINT64_MAX;
    }
    file->base = NULL;
    file->size = size;
    file->verified = verified;
    file->unverified = 1;
    file->source = NULL;
}

TEST(borrowed_vectors_in_a_file_give_the_same_graph)
{
    static _Atomic uint64_t verified[1];
    struct fixture own, borrowing;
    struct block_file file;
    struct rows_view vectors;
    struct graph_view view;
    uint8_t *chunk;

    start_random(15);
    CHECK(fixture_fill(&own, OMENDB_L2, 1000));
    graph_get_view(own.graph, &view);
    CHECK(fixture_create(&borrowing, OMENDB_L2, 0));
    vectors = hostile_rows(&chunk, 1000, DIM * sizeof(float));
    for (uint32_t row = 0; row < 1000; row++) {
        memcpy(rows_at(&vectors, row), rows_at(&view.vectors, row), DIM * sizeof(float));
    }
    verified_file(&file, verified, 1, 64 * BLOCK_BYTES);
    graph_destroy(borrowing.graph);
    CHECK_EQ_INT(graph_create(&borrowing.memory, &own.graph->config, &vectors, &file, 4096,
                              &borrowing.graph),
                 OMENDB_OK);
    CHECK_EQ_INT(graph_reserve(borrowing.graph, 1000), OMENDB_OK);
    borrowing.rows = 1000;
    CHECK(fixture_insert(&borrowing, 0, 1000));
    CHECK(same_graph(&own, &borrowing));
    CHECK_EQ_INT(defects(&borrowing), 0);
    CHECK(recall_of(&borrowing, EF, NULL) > ENOUGH);
    CHECK(fixture_destroy(&own));
    CHECK(fixture_destroy(&borrowing));
    free(chunk);
}

TEST(a_limit_of_memory_fails_cleanly)
{
    struct fixture fixture;
    struct graph_scratch *scratch;
    struct graph_view view;
    struct graph_hit hits[HITS];
    float vector[DIM] = {0};
    size_t count;
    int defect_count = 0;

    start_random(14);
    CHECK(fixture_fill(&fixture, OMENDB_L2, 1000));
    fixture.memory.limit = fixture.memory.used + 300;
    CHECK_EQ_INT(graph_reserve(fixture.graph, 100000), OMENDB_NOMEM);
    scratch = graph_scratch_create(&fixture.memory);
    CHECK(scratch != NULL);
    graph_get_view(fixture.graph, &view);
    CHECK_EQ_INT(graph_check(&view, 1000, &fixture.memory, count_report, &defect_count),
                 OMENDB_NOMEM);
    CHECK_EQ_INT(defect_count, 0);
    CHECK_EQ_INT(search_with_ef(&view, scratch, vector, HITS, NULL, hits, &count, NULL),
                 OMENDB_NOMEM);
    fixture.memory.limit = 0;
    CHECK_EQ_INT(search_with_ef(&view, scratch, vector, HITS, NULL, hits, &count, NULL), OMENDB_OK);
    CHECK_EQ_INT(count, HITS);
    CHECK_EQ_INT(graph_reserve(fixture.graph, 2000), OMENDB_OK);
    graph_scratch_destroy(scratch);
    CHECK(fixture_destroy(&fixture));
}

TEST_MAIN(an_empty_graph_finds_nothing, small_graphs_find_every_row, every_metric_has_good_recall,
          a_scan_is_exact_and_merges_into_earlier_hits, a_wide_walk_equals_a_scan,
          filters_hide_rows_and_the_walk_goes_through_them,
          filters_exclude_a_row_and_those_beyond_a_limit, a_huge_stretch_is_a_walk_by_ef,
          a_stretch_stops_walks_early_and_finds_k_rows,
          the_cap_does_not_matter_to_a_walk_that_a_stretch_ends,
          what_is_dropped_beyond_the_bound_changes_neither_the_walk_nor_the_wanted_rows,
          a_stretch_counts_from_the_rows_that_a_filter_shows, copies_of_one_vector_stay_reachable,
          points_among_copies_are_found, one_thread_builds_the_same_graph_twice,
          levels_thin_out_by_M, rows_are_inserted_and_searched_by_many_threads,
          a_cut_graph_knows_nothing_of_later_rows, a_graph_grows_under_its_readers,
          taking_over_everything_is_a_copy, taking_over_a_part_keeps_recall_and_reach,
          taking_over_copies_keeps_reach, numbers_of_a_damaged_file_are_bounded,
          borrowed_vectors_in_a_file_give_the_same_graph, a_limit_of_memory_fails_cleanly)
