/* test_calibration.c: recall in place of ef: kept on queries that were not seen, warned of where it
 * was not measured, stored, carried over, never believed when it is nonsense.
 *
 * The graphs have few links, so that recall depends on the effort: with good ones everything is
 * found at once and nothing is tested. */
#include "internals.h"

#include "support.h"
#include "test.h"

#define DIM      24
#define ROWS     5000
#define QUERIES  300
#define CLUSTERS 40

/* Allocations until one fails; below 0: none does. */
static long allocations_left = -1;
/* Those of this size fail; 0: none do. */
static size_t failing_size;

static int allocation_fails(size_t size)
{
    return (failing_size != 0 && size == failing_size) ||
           (allocations_left >= 0 && allocations_left-- == 0);
}

static void *failing_alloc(void *context, size_t size)
{
    (void)context;
    return allocation_fails(size) ? NULL : malloc(size);
}

static void *failing_resize(void *context, void *memory, size_t old_size, size_t new_size)
{
    (void)context;
    (void)old_size;
    return allocation_fails(new_size) ? NULL : realloc(memory, new_size);
}

static void failing_release(void *context, void *memory, size_t size)
{
    (void)context;
    (void)size;
    free(memory);
}

struct world {
    omendb *db;
    omendb_collection *docs;
    struct support_random random;
    omendb_metric metric;
};

static float vectors[2 * ROWS][DIM];

/* Sums of uniform numbers: bell-shaped enough. */
static float world_noise(struct support_random *random)
{
    float sum = 0.0f;
    for (int i = 0; i < 4; i++)
        sum += (float)(support_next(random) >> 40) / (float)(1 << 24) - 0.5f;
    return sum;
}

/* One of the clusters, which the seed 7 fixes, and noise around it. */
static void world_vector(struct support_random *random, float spread, float *vector)
{
    struct support_random centre = {7 + 1000 * support_below(random, CLUSTERS)};
    for (uint32_t i = 0; i < DIM; i++)
        vector[i] = 2.0f * world_noise(&centre) + spread * world_noise(random);
}

static int world_open(struct world *world, const char *path)
{
    static const omendb_allocator allocator = {sizeof allocator, NULL, failing_alloc,
                                               failing_resize, failing_release};
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.allocator = &allocator;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    return omendb_open(path, &options, &world->db);
}

static int world_add(struct world *world, uint64_t first, size_t count)
{
    static uint64_t ids[2 * ROWS];
    for (size_t i = 0; i < count; i++) {
        ids[i] = first + i;
        world_vector(&world->random, 2.0f, vectors[i]);
    }
    return omendb_put_batch(world->docs, NULL, count, ids, vectors, OMENDB_F32, NULL);
}

/* A collection of `rows` records in one segment. */
static int world_make_with(struct world *world, const char *path, omendb_metric metric, size_t rows,
                           uint32_t M)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    *world = (struct world){.random = {11 + (uint64_t)metric}, .metric = metric};
    schema.dim = DIM;
    schema.metric = metric;
    schema.M = M;
    schema.ef_construction = 24;
    int code = world_open(world, path);
    if (code == OMENDB_OK)
        code = omendb_collection_create(world->db, "docs", &schema, &world->docs);
    if (code == OMENDB_OK)
        code = world_add(world, 0, rows);
    if (code == OMENDB_OK)
        code = omendb_optimize(world->db, NULL, NULL);
    return code;
}

static int world_make(struct world *world, const char *path, omendb_metric metric, size_t rows)
{
    return world_make_with(world, path, metric, rows, 5);
}

static int world_close(struct world *world)
{
    omendb_collection_close(world->docs);
    return omendb_close(world->db);
}

static int world_reopen(struct world *world, const char *path)
{
    int code = world_close(world);
    if (code == OMENDB_OK)
        code = world_open(world, path);
    if (code == OMENDB_OK)
        code = omendb_collection_open(world->db, "docs", NULL, &world->docs);
    return code;
}

static const struct segment *world_segment(const struct world *world)
{
    return atomic_load(&world->docs->collection->version)->segments[0];
}

/* What searches for `k` with a recall give, over queries that were never seen. */
struct outcome {
    double recall;
    float promised; /* the least */
    uint64_t ef;
    uint32_t warnings;
    uint64_t distances;
};

static int world_ask_one(struct world *world, const omendb_query *query, struct outcome *outcome)
{
    static uint64_t ids[300];
    static float truth[300], found[300];
    omendb_query exact = *query;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    omendb_query asked = *query;
    size_t count = 0, there = 0, good = 0;
    exact.exact = 1;
    asked.explain = &explain;
    int code = omendb_search(world->docs, NULL, &exact, ids, truth, &there);
    if (code == OMENDB_OK)
        code = omendb_search(world->docs, NULL, &asked, ids, found, &count);
    if (code != OMENDB_OK || there == 0)
        return code == OMENDB_OK ? OMENDB_NOTFOUND : code;
    for (size_t i = 0; i < count; i++)
        good += found[i] <= truth[there - 1] + fabsf(truth[there - 1]) * 1e-5f;
    outcome->recall += (double)good / (double)there;
    outcome->promised = explain.recall < outcome->promised ? explain.recall : outcome->promised;
    outcome->ef = explain.ef > outcome->ef ? explain.ef : outcome->ef;
    outcome->warnings |= explain.warnings;
    outcome->distances += explain.distances;
    return OMENDB_OK;
}

static struct outcome world_ask(struct world *world, size_t k, float recall, float spread)
{
    struct outcome outcome = {.promised = 2.0f};
    struct support_random random = {99};
    float vector[DIM];
    for (int i = 0; i < QUERIES; i++) {
        omendb_query query = OMENDB_QUERY_INIT;
        world_vector(&random, spread, vector);
        query.vector = vector;
        query.k = k;
        query.recall = recall;
        if (world_ask_one(world, &query, &outcome) != OMENDB_OK)
            return (struct outcome){.recall = -1.0};
    }
    outcome.recall /= QUERIES;
    return outcome;
}

/* What a graph without a curve is walked with. */
static struct calibration_answer world_effort(const struct world *world, size_t k, float recall)
{
    const struct search_request request = {.collection = world->docs->collection,
                                           .version =
                                               atomic_load(&world->docs->collection->version),
                                           .excluded_id = OMENDB_ID_AUTO,
                                           .recall = recall,
                                           .ef = 64};
    struct search_plan plan;
    search_make_plan(&request, k, &plan);
    return plan.most;
}

static int efforts_are_equal(struct calibration_answer left, struct calibration_answer right)
{
    return left.k == right.k && left.ef == right.ef && left.stretch == right.stretch &&
           left.cost == right.cost;
}

/* ------------------------------------------------------------------------------------------------
 * what is promised */

static void check_recall_is_kept(omendb_metric metric)
{
    static const float asked[3] = {0.90f, 0.95f, 0.99f};
    struct world world;
    uint64_t distances = 0;
    CHECK_EQ_INT(world_make(&world, ":memory:", metric, ROWS), OMENDB_OK);
    CHECK(world_segment(&world)->calibration != NULL);
    for (int i = 0; i < 3; i++) {
        for (size_t k = 1; k <= 100; k *= 10) {
            const struct outcome outcome = world_ask(&world, k, asked[i], 2.0f);
            CHECK(outcome.recall >= (double)asked[i] - 0.02);
            CHECK(outcome.promised >= asked[i] - 1e-6f && outcome.warnings == 0);
            /* An effort that is not worth walking for becomes a scan. */
            CHECK(outcome.ef == 0 ? outcome.promised == 1.0f
                                  : outcome.ef >= k && outcome.distances < QUERIES * ROWS);
            const float stretch = world_effort(&world, k, asked[i]).stretch;
            CHECK(metric == OMENDB_INNER_PRODUCT ? stretch == 0.0f
                                                 : i == 0 || k != 10 || stretch > 1.0f);
            CHECK(k != 10 || outcome.distances > distances + distances / 20);
            distances = k == 10 ? outcome.distances : distances;
        }
    }
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(recall_is_kept_on_unseen_queries_l2)
{
    check_recall_is_kept(OMENDB_L2);
}

TEST(recall_is_kept_on_unseen_queries_cosine)
{
    check_recall_is_kept(OMENDB_COSINE);
}

TEST(recall_is_kept_on_unseen_queries_inner_product)
{
    check_recall_is_kept(OMENDB_INNER_PRODUCT);
}

TEST(recall_is_kept_after_deletes_and_replacements)
{
    struct world world;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, ROWS), OMENDB_OK);
    for (uint64_t id = 0; id < ROWS; id += 4)
        CHECK_EQ_INT(omendb_delete(world.docs, NULL, id), OMENDB_OK);
    CHECK_EQ_INT(world_add(&world, 1000, 1000), OMENDB_OK);
    CHECK(world_ask(&world, 10, 0.95f, 2.0f).recall >= 0.93);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    const struct outcome outcome = world_ask(&world, 10, 0.95f, 2.0f);
    CHECK(outcome.recall >= 0.93);
    CHECK_EQ_INT(outcome.warnings, 0);
    CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(a_batch_takes_the_same_effort)
{
    static uint64_t ids[50][10];
    struct world world;
    struct support_random random = {5};
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, ROWS), OMENDB_OK);
    for (int i = 0; i < 50; i++)
        world_vector(&random, 2.0f, vectors[i]);
    omendb_query query = OMENDB_QUERY_INIT;
    query.recall = 0.9f;
    CHECK_EQ_INT(omendb_search_batch(world.docs, NULL, &query, vectors, 50, ids[0], NULL, NULL),
                 OMENDB_OK);
    for (int i = 0; i < 50; i++) {
        uint64_t alone[10];
        size_t count;
        query.vector = vectors[i];
        CHECK_EQ_INT(omendb_search(world.docs, NULL, &query, alone, NULL, &count), OMENDB_OK);
        CHECK(memcmp(alone, ids[i], sizeof alone) == 0);
    }
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

enum last_rows { LIKE_THE_OTHERS, TIGHT, WIDE };

/* A collection whose last rows, as many as a merge asks, are of a kind of their own: in a
 * plane, where everything is found at once, or too far apart for that. */
static int world_make_ending(struct world *world, enum last_rows last, size_t rows)
{
    static uint64_t ids[ROWS];
    float shared[DIM];
    int code = world_make(world, ":memory:", OMENDB_L2, 0);
    world_vector(&world->random, 2.0f, shared);
    for (size_t i = 0; i < rows; i++) {
        ids[i] = i;
        const int is_last = i >= rows - rows / 16;
        world_vector(&world->random, is_last && last == WIDE ? 6.0f : 2.0f, vectors[i]);
        if (is_last && last == TIGHT) {
            memcpy(vectors[i], shared, sizeof shared);
            for (int j = 0; j < 2; j++)
                vectors[i][j] += world_noise(&world->random);
        }
    }
    if (code == OMENDB_OK)
        code = omendb_put_batch(world->docs, NULL, rows, ids, vectors, OMENDB_F32, NULL);
    return code == OMENDB_OK ? omendb_optimize(world->db, NULL, NULL) : code;
}

TEST(the_rows_that_were_added_last_do_not_decide_the_effort)
{
    uint64_t distances[3] = {0, 0, 0};
    for (int last = LIKE_THE_OTHERS; last <= WIDE; last++) {
        struct world world;
        CHECK_EQ_INT(world_make_ending(&world, (enum last_rows)last, ROWS), OMENDB_OK);
        CHECK(world_segment(&world)->calibration != NULL);
        const struct outcome outcome = world_ask(&world, 10, 0.9f, 2.0f);
        printf("kind %d: asked for 0.90, found %.3f with %u distances\n", last, outcome.recall,
               (unsigned)(outcome.distances / QUERIES));
        CHECK(outcome.recall >= 0.88);
        CHECK(outcome.promised >= 0.9f - 1e-6f && outcome.warnings == 0);
        distances[last] = outcome.distances;
        CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
        CHECK_EQ_INT(world_close(&world), OMENDB_OK);
    }
    CHECK(distances[TIGHT] >= distances[LIKE_THE_OTHERS] * 3 / 4);
    CHECK(distances[TIGHT] <= distances[LIKE_THE_OTHERS] * 3 / 2);
    CHECK(distances[WIDE] <= distances[LIKE_THE_OTHERS] * 3 / 2);
}

TEST(held_rows_are_spread_whatever_the_order)
{
    for (uint32_t first = 0; first < 3; first++) {
        for (uint32_t rows = 4000 + first; rows < 20000; rows += 777) {
            struct graph_held held;
            uint32_t classes[7] = {0}, found = 0, others = 0;
            calibrate_choose(first, rows, &held);
            CHECK(held.count >= 199 && held.step >= 20);
            for (uint32_t row = 0; row < rows; row++) {
                if (graph_is_held(&held, row)) {
                    CHECK_EQ_INT(graph_held_row(&held, found++), row);
                    classes[row % 7]++;
                } else {
                    CHECK_EQ_INT(graph_unheld_row(&held, others++), row);
                }
            }
            CHECK_EQ_INT(found, held.count);
            CHECK(graph_held_row(&held, found - 1) >= rows - 2 * held.step - held.count);
            for (int i = 0; i < 7; i++)
                CHECK(classes[i] > held.count / 14);
        }
    }
}

/* ------------------------------------------------------------------------------------------------
 * what is not */

TEST(explain_warns_outside_of_what_was_measured)
{
    struct world world;
    CHECK_EQ_INT(world_make_with(&world, ":memory:", OMENDB_L2, ROWS, 16), OMENDB_OK);
    struct outcome outcome = world_ask(&world, 10, 1.0f, 2.0f);
    CHECK_EQ_INT(outcome.warnings, OMENDB_EXPLAIN_RECALL_BEYOND);
    CHECK(outcome.promised >= 0.999f && outcome.promised < 1.0f && outcome.recall > 0.99);
    outcome = world_ask(&world, 120, 0.8f, 2.0f);
    CHECK_EQ_INT(outcome.warnings, OMENDB_EXPLAIN_K_BEYOND);
    CHECK(outcome.ef >= 120 && outcome.recall >= 0.78);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

/* The record is left out of the hits, but it is no hit more that must be found. */
TEST(a_query_by_a_record_is_promised_what_its_k_is)
{
    struct world world;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, ROWS), OMENDB_OK);
    for (size_t k = 10; k <= 100; k += 90) {
        const uint64_t ef = world_ask(&world, k, 0.9f, 2.0f).ef;
        struct outcome outcome = {.promised = 2.0f};
        omendb_query query = OMENDB_QUERY_INIT;
        query.id = 7;
        query.k = k;
        query.recall = 0.9f;
        CHECK_EQ_INT(world_ask_one(&world, &query, &outcome), OMENDB_OK);
        CHECK_EQ_INT(outcome.warnings, 0);
        CHECK_EQ_INT(outcome.ef, ef);
        CHECK(outcome.promised >= 0.9f);
    }
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(a_graph_without_a_curve_takes_the_effort_of_another)
{
    struct world world;
    int more = 1;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, ROWS), OMENDB_OK);
    const uint64_t ef = world_ask(&world, 10, 0.95f, 2.0f).ef;
    const struct calibration_answer effort = world_effort(&world, 10, 0.95f);
    CHECK(ef != 64 && effort.stretch > 1.0f && effort.cost > 1.0f);
    CHECK_EQ_INT(world_add(&world, ROWS, 2000), OMENDB_OK);
    while (more && atomic_load(&world.docs->collection->version)->memtable_count != 0 &&
           atomic_load(&atomic_load(&world.docs->collection->version)->memtables[0]->indexed) <
               2000)
        CHECK_EQ_INT(omendb_work(world.db, 0, &more), OMENDB_OK);
    const struct outcome outcome = world_ask(&world, 10, 0.95f, 2.0f);
    CHECK_EQ_INT(outcome.warnings, OMENDB_EXPLAIN_UNCALIBRATED);
    CHECK_EQ_INT(outcome.ef, ef);
    CHECK(efforts_are_equal(world_effort(&world, 10, 0.95f), effort));
    CHECK(outcome.promised >= 0.949f && outcome.promised < 1.0f);
    CHECK(outcome.recall > 0.9);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(without_any_curve_the_effort_grows_with_the_recall_from_that_of_the_schema)
{
    static const struct {
        float recall;
        uint64_t ef;
    } asked[] = {{0.5f, 64}, {0.9f, 64}, {0.95f, 100}, {0.98f, 164}, {0.99f, 223}};
    struct world world;
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, 2000), OMENDB_OK);
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        const struct outcome outcome = world_ask(&world, 10, asked[i].recall, 2.0f);
        CHECK_EQ_INT(outcome.warnings, OMENDB_EXPLAIN_UNCALIBRATED);
        CHECK_EQ_INT(outcome.ef, asked[i].ef);
        CHECK(outcome.promised == 0.0f);
    }
    CHECK(calibration_guess_ef(1, 0.95f) == calibration_guess_ef(10, 0.95f));
    CHECK(calibration_guess_ef(100, 0.95f) > 3 * calibration_guess_ef(10, 0.95f));
    CHECK(calibration_guess_ef(10, 1.0f) > 700 && calibration_guess_ef(10, 1.0f) < 1000);
    CHECK(calibration_guess_ef(100000, 1.0f) == CALIBRATION_LARGEST_EF);
    CHECK_EQ_INT(omendb_collection_get_stats(world.docs, &stats), OMENDB_OK);
    CHECK(stats.recall == 0.0f);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(small_collections_are_compared_as_a_whole)
{
    struct world world;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, 300), OMENDB_OK);
    const struct outcome outcome = world_ask(&world, 10, 0.99f, 2.0f);
    CHECK(outcome.recall == 1.0 && outcome.promised == 1.0f);
    CHECK_EQ_INT(outcome.ef, 0);
    CHECK_EQ_INT(outcome.warnings, 0);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(nonsense_is_refused)
{
    struct world world;
    float vector[DIM] = {1.0f};
    uint64_t ids[10];
    size_t count;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, 300), OMENDB_OK);
    const float bad[] = {NAN, -0.5f, 2.0f, INFINITY, 1.0001f, -INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        omendb_query query = OMENDB_QUERY_INIT;
        query.vector = vector;
        query.recall = bad[i];
        CHECK_EQ_INT(omendb_search(world.docs, NULL, &query, ids, NULL, &count), OMENDB_INVALID);
        CHECK(strstr(omendb_errmsg(), "recall") != NULL);
    }
    omendb_query query = OMENDB_QUERY_INIT;
    query.vector = vector;
    query.recall = 0.9f;
    query.ef = 64;
    CHECK_EQ_INT(omendb_search(world.docs, NULL, &query, ids, NULL, &count), OMENDB_INVALID);
    query.ef = 0;
    query.recall = 1.0f;
    CHECK_EQ_INT(omendb_search(world.docs, NULL, &query, ids, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * what is stored */

TEST(a_curve_survives_reopening)
{
    const char *path = support_path("reopened.omen");
    struct world world;
    omendb_collection_stats before = OMENDB_COLLECTION_STATS_INIT, after = before;
    CHECK_EQ_INT(world_make(&world, path, OMENDB_COSINE, ROWS), OMENDB_OK);
    const struct outcome asked = world_ask(&world, 10, 0.93f, 2.0f);
    CHECK_EQ_INT(omendb_collection_get_stats(world.docs, &before), OMENDB_OK);
    CHECK(before.recall > 0.3f && before.recall < 1.0f);
    CHECK_EQ_INT(world_reopen(&world, path), OMENDB_OK);
    const struct outcome again = world_ask(&world, 10, 0.93f, 2.0f);
    CHECK(asked.recall == again.recall && asked.distances == again.distances);
    CHECK_EQ_INT(again.warnings, 0);
    CHECK_EQ_INT(omendb_collection_get_stats(world.docs, &after), OMENDB_OK);
    CHECK(after.recall == before.recall);
    CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(a_curve_is_carried_over_until_the_rows_have_doubled)
{
    struct world world;
    struct calibration first;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, ROWS), OMENDB_OK);
    first = *world_segment(&world)->calibration;
    CHECK_EQ_INT(first.rows, ROWS);
    for (uint64_t rows = ROWS + 1000; rows <= 2 * ROWS; rows += 1000) {
        CHECK_EQ_INT(world_add(&world, rows - 1000, 1000), OMENDB_OK);
        CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
        const struct segment *segment = world_segment(&world);
        CHECK_EQ_INT(segment->info.rows, rows);
        CHECK(segment->calibration != NULL);
        CHECK(memcmp(segment->calibration->entries, first.entries, sizeof first.entries) == 0);
        CHECK_EQ_INT(segment->calibration->rows, ROWS);
    }
    CHECK_EQ_INT(world_add(&world, 2 * ROWS, 1000), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    CHECK(world_segment(&world)->calibration != NULL);
    CHECK_EQ_INT(world_segment(&world)->calibration->rows, 2 * ROWS + 1000);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

/* ROWS records in one segment, whose graph the memtable built. */
static int world_make_in_memory(struct world *world, omendb_metric metric)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    int more = 1, code = world_make(world, ":memory:", metric, 0);
    if (code == OMENDB_OK)
        code = world_add(world, 0, ROWS);
    stats.unindexed_rows = 1;
    while (code == OMENDB_OK && more && stats.unindexed_rows != 0) {
        code = omendb_work(world->db, 0, &more);
        if (code == OMENDB_OK)
            code = omendb_collection_get_stats(world->docs, &stats);
    }
    return code == OMENDB_OK ? omendb_checkpoint(world->db) : code;
}

static uint64_t world_merges(const struct world *world)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    return omendb_get_stats(world->db, &stats) == OMENDB_OK ? stats.merges : UINT64_MAX;
}

TEST(optimize_measures_a_graph_that_was_built_in_memory)
{
    static const omendb_metric metrics[] = {OMENDB_L2, OMENDB_COSINE, OMENDB_INNER_PRODUCT};
    for (int i = 0; i < 3; i++) {
        struct world world;
        CHECK_EQ_INT(world_make_in_memory(&world, metrics[i]), OMENDB_OK);
        const struct segment *segment = world_segment(&world);
        CHECK_EQ_INT(segment->info.rows, ROWS);
        CHECK_EQ_INT(segment->info.indexed_rows, ROWS);
        CHECK(segment->calibration == NULL);
        CHECK_EQ_INT(world_merges(&world), 0);
        CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
        CHECK_EQ_INT(world_merges(&world), 1);
        CHECK(world_segment(&world)->calibration != NULL);
        const struct outcome outcome = world_ask(&world, 10, 0.9f, 2.0f);
        CHECK_EQ_INT(outcome.warnings, 0);
        CHECK(outcome.recall >= 0.88);
        CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
        CHECK_EQ_INT(world_merges(&world), 1);
        CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
        CHECK_EQ_INT(world_close(&world), OMENDB_OK);
    }
}

TEST(optimize_with_a_few_new_rows_measures_a_graph_that_has_no_curve)
{
    struct world world;
    CHECK_EQ_INT(world_make_in_memory(&world, OMENDB_L2), OMENDB_OK);
    CHECK_EQ_INT(world_add(&world, ROWS, 50), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    CHECK(world_segment(&world)->calibration != NULL);
    CHECK_EQ_INT(world_segment(&world)->calibration->rows, ROWS + 50);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(a_graph_that_cannot_be_measured_is_not_rebuilt_again_and_again)
{
    struct world world;
    CHECK_EQ_INT(world_make_in_memory(&world, OMENDB_L2), OMENDB_OK);
    failing_size = (size_t)ROWS / 20 * (CALIBRATION_LARGEST_K + 1) * sizeof(float);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
        CHECK(world_segment(&world)->calibration == NULL);
        CHECK_EQ_INT(world_merges(&world), 1);
    }
    failing_size = 0;
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(a_curve_of_the_callers_queries_is_not_replaced)
{
    struct world world;
    CHECK_EQ_INT(world_make_in_memory(&world, OMENDB_L2), OMENDB_OK);
    for (int i = 0; i < 100; i++)
        world_vector(&world.random, 2.0f, vectors[i]);
    CHECK_EQ_INT(omendb_calibrate(world.docs, vectors, 100, OMENDB_F32, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(world_merges(&world), 0);
    CHECK_EQ_INT(world_ask(&world, 10, 0.9f, 2.0f).warnings, 0);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

static int spoil_entry(struct calibration_entry *entry, int how)
{
    switch (how) {
    case 0:
        entry->low = NAN;
        return 1;
    case 1:
        entry->low = 1.5f;
        return 1;
    case 2:
        entry->low = -0.5f;
        return 1;
    case 3:
        entry->ef = 0;
        return 1;
    case 4:
        entry->ef = UINT32_MAX;
        return 1;
    case 5:
        entry->ef = entry[-1].ef;
        return 1;
    case 6:
        entry->low = entry[-1].low / 2.0f;
        return 1;
    case 7:
        entry->k = 0;
        return 1;
    case 8:
        entry->stretch = INFINITY;
        return 1;
    case 9:
        entry->stretch = -1.0f;
        return 1;
    case 10:
        entry->mean = NAN;
        return 1;
    case 11:
        entry->mean = entry->low / 2.0f;
        return 1;
    case 12:
        entry->k = 1000;
        return 1;
    case 13:
        entry->cost = 0;
        return 1;
    case 14:
        entry->cost = entry[-1].cost - 1;
        return 1;
    default:
        return 0;
    }
}

/* A stretch costs three quarters of the ef that finds as much. */
static void curve_make(struct calibration *curve, int by_stretch)
{
    struct calibration_entry rung;
    float recalls[100];
    *curve = (struct calibration){.rows = 5000};
    for (size_t i = 0; calibration_rung(curve, i, by_stretch, &rung); i++) {
        const float effort = rung.stretch > 0.0f ? 400.0f * rung.stretch - 390.0f : (float)rung.ef;
        rung.cost = (uint32_t)(effort * (rung.stretch > 0.0f ? 9.0f : 12.0f));
        for (int q = 0; q < 100; q++)
            recalls[q] = 1.0f - 2.0f / effort - (q % 10 == 0 ? 0.1f : 0.0f);
        calibration_add(curve, &rung, recalls, 100);
        CHECK_EQ_INT(curve->count, i + 1);
    }
}

TEST(a_curve_that_is_none_is_not_taken)
{
    struct calibration curve, spoilt, read;
    uint8_t bytes[FORMAT_CALIBRATION_BYTES + CALIBRATION_MAX_ENTRIES * FORMAT_CURVE_BYTES];
    curve_make(&curve, 1);
    const size_t size = calibration_bytes(&curve);
    calibration_encode(&curve, bytes);
    CHECK(calibration_decode(&read, bytes, size));
    CHECK(memcmp(&read, &curve, sizeof read) == 0);
    for (int how = 0;; how++) {
        spoilt = curve;
        if (!spoil_entry(&spoilt.entries[3], how))
            break;
        calibration_encode(&spoilt, bytes);
        CHECK(!calibration_decode(&read, bytes, size));
        CHECK_EQ_INT(read.count, 0);
    }
    spoilt = curve; /* the first of all, which no other one is above */
    spoilt.entries[0].cost = 0;
    calibration_encode(&spoilt, bytes);
    CHECK(!calibration_decode(&read, bytes, size));
    spoilt = curve; /* what lies between this one and another might be no number */
    spoilt.entries[spoilt.count - 1].stretch = 3e38f;
    calibration_encode(&spoilt, bytes);
    CHECK(!calibration_decode(&read, bytes, size));
    spoilt = curve; /* an ef alone does not follow a stretch */
    spoilt.entries[7].stretch = 0.0f;
    calibration_encode(&spoilt, bytes);
    CHECK(!calibration_decode(&read, bytes, size));
    calibration_encode(&curve, bytes);
    CHECK(!calibration_decode(&read, bytes, size - 1));
    CHECK(!calibration_decode(&read, bytes, size - FORMAT_CURVE_BYTES));
    CHECK(!calibration_decode(&read, bytes, FORMAT_CALIBRATION_BYTES));
    CHECK(!calibration_decode(&read, bytes, 0));
    CHECK(!calibration_decode(&read, bytes, UINT64_MAX));
    format_put32(bytes + FORMAT_CALIBRATION_ENTRIES, UINT32_MAX);
    CHECK(!calibration_decode(&read, bytes, size));
}

TEST(answers_lie_between_the_entries)
{
    struct calibration curve;
    struct calibration_answer answer;
    size_t ef = 0;
    curve_make(&curve, 0);
    for (float recall = 0.5f; recall <= 1.0f; recall += 0.001f) {
        calibration_find_effort(&curve, 10, recall, &answer);
        CHECK(answer.ef >= ef && answer.ef >= 10 && answer.ef <= 850);
        const int beyond = (answer.warnings & OMENDB_EXPLAIN_RECALL_BEYOND) != 0;
        CHECK(beyond == (recall > curve.entries[11].low));
        CHECK(beyond || answer.recall >= recall);
        ef = answer.ef;
        calibration_find_recall(&curve, 10, ef, 0.0f, &answer);
        CHECK(beyond || answer.recall >= recall - 1e-5f);
    }
    ef = 10;
    for (size_t k = 10; k <= 100; k++) {
        calibration_find_effort(&curve, k, 0.5f, &answer);
        CHECK(answer.ef >= ef && answer.ef <= 100);
        CHECK_EQ_INT(answer.warnings, 0);
        ef = answer.ef;
    }
    CHECK_EQ_INT(ef, 100);
    calibration_find_effort(&curve, 11, 0.5f, &answer);
    CHECK(answer.ef <= 12);
    calibration_find_recall(&curve, 10, 64, 0.0f, &answer);
    const float of_ten = answer.recall;
    calibration_find_recall(&curve, 11, 64, 0.0f, &answer);
    CHECK(answer.recall > 0.9f * of_ten && answer.recall <= of_ten);
    calibration_find_effort(&curve, 1000, 0.5f, &answer);
    CHECK_EQ_INT(answer.ef, 1000);
    CHECK_EQ_INT(answer.warnings, OMENDB_EXPLAIN_K_BEYOND);
    calibration_find_effort(&curve, SIZE_MAX, 1.0f, &answer);
    CHECK_EQ_INT(answer.ef, CALIBRATION_LARGEST_EF);
    calibration_find_recall(&curve, 10, 5, 0.0f, &answer);
    CHECK(answer.recall == 0.0f);
    calibration_find_recall(&curve, 10, 100000, 0.0f, &answer);
    CHECK(answer.recall == curve.entries[11].low);
}

/* Whatever stretch the data needs, the rungs come near to all, and not by a leap. */
TEST(the_rungs_of_stretch_follow_what_is_missed)
{
    for (float slope = 0.8f; slope < 50.0f; slope *= 2.0f) {
        struct calibration curve = {.rows = ROWS};
        struct calibration_entry rung;
        float recalls[500], missed = 1.0f;
        for (size_t i = 0; calibration_rung(&curve, i, 1, &rung); i++) {
            if (rung.stretch == 0.0f || rung.k != 10 || calibration_is_enough(&curve, &rung))
                continue;
            const float before = missed;
            missed = 0.2f * expf(slope * (1.0f - rung.stretch));
            rung.cost = (uint32_t)(20.0f / missed);
            CHECK(rung.stretch == 1.0f || missed > before / 5.0f);
            for (int q = 0; q < 500; q++)
                recalls[q] = 1.0f - missed;
            calibration_add(&curve, &rung, recalls, 500);
        }
        CHECK(missed < 0.001f && curve.count >= 10);
        CHECK(calibration_is_legal(&curve));
    }
}

TEST(no_rung_is_tried_that_could_tell_nothing_more)
{
    static const struct {
        float cap_mean, cap_low, mean, low;
        uint32_t cost;
        int is_enough;
    } cases[] = {
        {0.9998f, 0.9993f, 0.98f, 0.97f, 3000, 0},
        {0.9998f, 0.9993f, 0.9995f, 0.9989f, 3000, 0}, /* 0.999 is still to be had */
        {0.9998f, 0.9993f, 0.9996f, 0.9991f, 3000, 1},
        {0.9998f, 0.9993f, 0.98f, 0.97f, 7600, 1},
        {0.998f, 0.996f, 0.9975f, 0.9955f, 3000, 0},
        {0.998f, 0.996f, 0.9977f, 0.9957f, 3000, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct calibration curve = {
            .rows = ROWS,
            .count = 2,
            .entries = {
                {10, 850, 0.0f, cases[i].cap_mean, cases[i].cap_low, 10000},
                {10, 850, 1.2f, cases[i].mean, cases[i].low, cases[i].cost},
            }};
        const struct calibration_entry rung = {.k = 10, .ef = 850, .stretch = 1.3f};
        const struct calibration_entry of_more = {.k = 100, .ef = 900, .stretch = 1.0f};
        CHECK_EQ_INT(calibration_is_enough(&curve, &rung), cases[i].is_enough);
        CHECK(!calibration_is_enough(&curve, &of_more));
    }
}

TEST(a_recall_is_given_by_a_stretch_where_there_is_one)
{
    struct calibration curve, old;
    struct calibration_answer answer, by_ef;
    float stretch = 1.0f;
    curve_make(&curve, 1);
    curve_make(&old, 0);
    for (float recall = 0.5f; recall <= curve.entries[18].low; recall += 0.001f) {
        calibration_find_effort(&curve, 10, recall, &answer);
        CHECK(answer.stretch >= stretch && answer.ef == 850 && answer.k == 10);
        CHECK(answer.recall >= recall && answer.warnings == 0);
        stretch = answer.stretch;
        calibration_find_effort(&old, 10, recall, &by_ef);
        CHECK(answer.work >= by_ef.work * 9 / 10 && answer.work <= by_ef.work * 5 / 4 + 1);
        calibration_find_recall(&curve, 10, 850, stretch, &answer);
        CHECK(answer.recall >= recall - 1e-5f && answer.warnings == 0);
    }
    CHECK(stretch > 1.3f);
    calibration_find_effort(&curve, 1, 0.9f, &answer);
    CHECK(answer.k == 10 && answer.stretch > 0.0f && answer.warnings == 0);
    calibration_find_effort(&curve, 40, 0.9f, &answer);
    CHECK(answer.k == 40 && answer.stretch > 0.0f && answer.warnings == 0);
    CHECK(answer.ef >= 850 && answer.ef <= 900);
    calibration_find_effort(&curve, 10, 1.0f, &answer);
    CHECK_EQ_INT(answer.warnings, OMENDB_EXPLAIN_RECALL_BEYOND);
    calibration_find_effort(&curve, 1000, 0.5f, &answer);
    CHECK(answer.ef == 1000 && answer.stretch == 0.0f);
    CHECK_EQ_INT(answer.warnings, OMENDB_EXPLAIN_K_BEYOND);
    /* What was not measured is not promised. */
    static const size_t untold[][2] = {{9, 850}, {101, 900}, {10, 849}, {100, 899}, {40, 899}};
    for (size_t i = 0; i < sizeof untold / sizeof untold[0]; i++) {
        calibration_find_recall(&curve, untold[i][0], untold[i][1], 1.2f, &answer);
        CHECK(answer.recall == 0.0f);
    }
    calibration_find_recall(&curve, 100, 900, 1.2f, &answer);
    CHECK(answer.recall > 0.8f);
    calibration_find_recall(&curve, 40, 900, 1.2f, &answer);
    CHECK(answer.recall > 0.8f);
    calibration_find_recall(&old, 10, 2000, 1.2f, &answer);
    CHECK(answer.recall == 0.0f);
    calibration_find_recall(&curve, 10, 2000, 100.0f, &answer);
    CHECK(answer.recall == curve.entries[18].low);
}

/* Two entries of each kind for k = 10 and k = 100, which find the same: by ef for 100 and 10,000
 * distances, times `factor` of k, by stretch for the given ones. */
static void curve_of_both(struct calibration *curve, uint32_t factor, const uint32_t costs[4])
{
    *curve = (struct calibration){.rows = ROWS, .queries = 500, .count = 8};
    for (uint32_t i = 0; i < 8; i++) {
        const int is_last = i % 2 == 1, by_stretch = i % 4 >= 2;
        const uint32_t k = i < 4 ? 10 : 100, times = i < 4 ? 1 : factor;
        curve->entries[i] = (struct calibration_entry){
            .k = k,
            .ef = by_stretch || is_last ? 900 : k,
            .stretch = !by_stretch ? 0.0f
                       : is_last   ? 1.5f
                                   : 1.0f,
            .mean = is_last ? 0.999f : 0.9f,
            .low = is_last ? 0.999f : 0.9f,
            .cost = by_stretch ? costs[i / 4 * 2 + i % 2] : (is_last ? 10000 : 100) * times,
        };
    }
    CHECK(calibration_is_legal(curve));
}

static struct calibration_answer answer_of(const struct calibration *curve, size_t k, float recall)
{
    struct calibration_answer answer;
    calibration_find_effort(curve, k, recall, &answer);
    return answer;
}

TEST(the_kind_that_costs_less_is_taken)
{
    static const float recalls[] = {0.5f, 0.9f, 0.91f, 0.95f, 0.99f, 0.999f};
    static const uint32_t less[4] = {99, 9999, 499, 49999}, more[4] = {101, 10001, 501, 50001};
    static const uint32_t crossing[4] = {50, 20000, 250, 100000};
    struct calibration cheap, dear, both;
    curve_of_both(&cheap, 5, less);
    curve_of_both(&dear, 5, more);
    curve_of_both(&both, 5, crossing);
    for (size_t k = 1; k <= 100; k += 3) {
        int changes = 0, by_ef = 0;
        for (size_t i = 0; i < sizeof recalls / sizeof recalls[0]; i++) {
            const struct calibration_answer of_cheap = answer_of(&cheap, k, recalls[i]);
            const struct calibration_answer of_dear = answer_of(&dear, k, recalls[i]);
            CHECK(of_cheap.stretch >= 1.0f && of_dear.stretch == 0.0f);
            CHECK(of_cheap.ef == 900 && of_dear.ef <= 900 && of_cheap.work == of_dear.work);
            CHECK(of_cheap.recall >= recalls[i] && of_dear.recall >= recalls[i]);
            CHECK(of_cheap.cost < of_dear.cost && of_cheap.cost > of_dear.cost * 0.98f);
            const int now = answer_of(&both, k, recalls[i]).stretch == 0.0f;
            changes += now != by_ef;
            by_ef = now;
        }
        CHECK(by_ef && changes == 1);
    }
    CHECK(fabsf(answer_of(&cheap, 10, 0.9f).cost - 99.0f) < 0.1f);
    CHECK(fabsf(answer_of(&cheap, 10, 0.9495f).cost - 995.0f) < 1.0f);
    CHECK(fabsf(answer_of(&dear, 10, 0.9495f).cost - 1000.0f) < 1.0f);
    CHECK(fabsf(answer_of(&dear, 100, 0.999f).cost - 50000.0f) < 50.0f);
    CHECK(answer_of(&cheap, 1000, 0.95f).stretch == 0.0f);
}

TEST(between_two_k_the_kinds_are_compared_by_what_they_cost_there)
{
    static const uint32_t costs[4] = {50, 5000, 2000, 200000}; /* half, and four times that by ef */
    struct calibration curve;
    curve_of_both(&curve, 5, costs);
    float cost = 0.0f;
    int by_ef = 0;
    for (size_t k = 10; k <= 100; k++) {
        const struct calibration_answer answer = answer_of(&curve, k, 0.95f);
        CHECK(answer.cost > cost && answer.warnings == 0);
        CHECK((answer.stretch == 0.0f) >= by_ef);
        if (answer.stretch == 0.0f && !by_ef)
            CHECK(k > 20 && k < 24); /* a third of the way, in the logarithm */
        by_ef = answer.stretch == 0.0f;
        cost = answer.cost;
    }
    CHECK(by_ef);
}

TEST(of_two_kinds_the_one_that_reaches_more_is_taken)
{
    static const uint32_t dear[4] = {200, 20000, 1000, 100000};
    static const uint32_t cheap[4] = {50, 5000, 250, 25000};
    struct calibration curve;
    curve_of_both(&curve, 5, dear);
    CHECK(answer_of(&curve, 10, 1.0f).stretch == 0.0f);
    curve.entries[1].low = 0.99f;
    CHECK(answer_of(&curve, 10, 0.995f).stretch > 1.0f);
    CHECK_EQ_INT(answer_of(&curve, 10, 0.995f).warnings, 0);
    CHECK(answer_of(&curve, 10, 1.0f).stretch > 1.0f);
    CHECK_EQ_INT(answer_of(&curve, 10, 1.0f).warnings, OMENDB_EXPLAIN_RECALL_BEYOND);
    curve_of_both(&curve, 5, cheap);
    CHECK(answer_of(&curve, 10, 1.0f).stretch > 1.0f);
    curve.entries[3].low = 0.99f;
    CHECK(answer_of(&curve, 10, 0.995f).stretch == 0.0f);
    CHECK_EQ_INT(answer_of(&curve, 10, 0.995f).warnings, 0);
    CHECK(answer_of(&curve, 10, 1.0f).stretch == 0.0f);
    CHECK_EQ_INT(answer_of(&curve, 10, 1.0f).warnings, OMENDB_EXPLAIN_RECALL_BEYOND);
}

/* A greater ef that finds more than every stretch is taken. */
TEST(a_recall_beyond_the_stretches_is_given_by_an_ef)
{
    struct calibration curve;
    struct calibration_answer answer;
    curve_make(&curve, 1);
    const float beyond = curve.entries[18].low + 0.0005f;
    curve.entries[5].low = curve.entries[5].mean = 0.9995f;
    calibration_find_effort(&curve, 10, beyond, &answer);
    CHECK(answer.stretch == 0.0f && answer.ef > 300 && answer.ef <= 850 && answer.warnings == 0);
    curve.entries[5].low = curve.entries[4].low;
    calibration_find_effort(&curve, 10, beyond, &answer);
    CHECK(answer.stretch > 3.0f && answer.warnings == OMENDB_EXPLAIN_RECALL_BEYOND);
}

TEST(a_search_by_stretch_is_promised_what_was_measured)
{
    struct world world;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, ROWS), OMENDB_OK);
    for (uint32_t ef = 0; ef <= 500; ef += 500) {
        struct outcome outcome = {.promised = 2.0f};
        struct support_random random = {99};
        for (int i = 0; i < QUERIES; i++) {
            float vector[DIM];
            omendb_query query = OMENDB_QUERY_INIT;
            world_vector(&random, 2.0f, vector);
            query.vector = vector;
            query.stretch = 1.3f;
            query.ef = ef;
            CHECK_EQ_INT(world_ask_one(&world, &query, &outcome), OMENDB_OK);
        }
        CHECK_EQ_INT(outcome.warnings, ef == 0 ? 0 : OMENDB_EXPLAIN_UNCALIBRATED);
        CHECK(ef != 0 ? outcome.promised == 0.0f
                      : outcome.promised > 0.5f &&
                            (double)outcome.promised <= outcome.recall / QUERIES + 0.02);
    }
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

static void count_problem(void *context, const char *line)
{
    (void)line;
    ++*(int *)context;
}

/* The curve of a segment is spoilt in memory; a merge that carries it over signs it with good
 * checksums. */
TEST(a_hostile_curve_in_a_file_is_none)
{
    const char *path = support_path("hostile.omen");
    for (int how = 0; how < 12; how += 6) {
        struct world world;
        uint64_t problems = 0;
        int lines = 0;
        support_remove(path);
        CHECK_EQ_INT(world_make(&world, path, OMENDB_L2, 4000), OMENDB_OK);
        spoil_entry(&world_segment(&world)->calibration->entries[3], how);
        CHECK_EQ_INT(world_add(&world, 4000, 20), OMENDB_OK);
        CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
        CHECK(world_segment(&world)->calibration == NULL);
        CHECK_EQ_INT(world_reopen(&world, path), OMENDB_OK);
        CHECK(world_segment(&world)->calibration == NULL);
        const struct outcome outcome = world_ask(&world, 10, 0.95f, 2.0f);
        CHECK_EQ_INT(outcome.warnings, OMENDB_EXPLAIN_UNCALIBRATED);
        CHECK_EQ_INT(outcome.ef, calibration_guess_ef(10, 0.95f));
        CHECK_EQ_INT(omendb_check(world.db, count_problem, &lines, &problems), OMENDB_OK);
        CHECK(problems == 1 && lines == 1);
        CHECK_EQ_INT(world_close(&world), OMENDB_OK);
    }
}

/* ------------------------------------------------------------------------------------------------
 * the user's own queries */

/* Queries from farther out than the records. */
static int world_calibrate(struct world *world, size_t count, float spread,
                           int (*progress)(void *context, uint64_t done, uint64_t total),
                           void *context)
{
    struct support_random random = {1234};
    for (size_t i = 0; i < count; i++)
        world_vector(&random, spread, vectors[i]);
    return omendb_calibrate(world->docs, vectors, count, OMENDB_F32, progress, context);
}

/* What is stored is what searches of the same efforts compute, on queries like the records. */
TEST(the_cost_is_what_searches_compute)
{
    struct world world;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, ROWS), OMENDB_OK);
    for (int asked = 0; asked < 2; asked++) {
        const struct collection *collection = world.docs->collection;
        const struct calibration *curve =
            asked ? atomic_load(&collection->calibration) : world_segment(&world)->calibration;
        for (uint32_t i = 0; curve != NULL && i < curve->count; i++) {
            const struct calibration_entry *entry = &curve->entries[i];
            struct outcome outcome = {.promised = 2.0f};
            struct support_random random = {99};
            for (int j = 0; j < QUERIES; j++) {
                float vector[DIM];
                omendb_query query = OMENDB_QUERY_INIT;
                world_vector(&random, 2.0f, vector);
                query.vector = vector;
                query.k = entry->k;
                query.ef = entry->ef;
                query.stretch = entry->stretch;
                CHECK_EQ_INT(world_ask_one(&world, &query, &outcome), OMENDB_OK);
            }
            const double cost = (double)outcome.distances / QUERIES;
            CHECK(outcome.ef == 0 || (cost > 0.9 * entry->cost && cost < 1.1 * entry->cost));
        }
        CHECK(curve != NULL);
        if (!asked)
            CHECK_EQ_INT(world_calibrate(&world, 300, 2.0f, NULL, NULL), OMENDB_OK);
    }
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(calibrating_keeps_the_recall_of_other_queries)
{
    const char *path = support_path("calibrated.omen");
    struct world world;
    CHECK_EQ_INT(world_make(&world, path, OMENDB_L2, ROWS), OMENDB_OK);
    const struct outcome before = world_ask(&world, 10, 0.9f, 6.0f);
    CHECK_EQ_INT(world_calibrate(&world, 500, 6.0f, NULL, NULL), OMENDB_OK);
    const struct outcome after = world_ask(&world, 10, 0.9f, 6.0f);
    CHECK(before.recall < 0.85); /* or the test would show nothing */
    CHECK(after.recall >= 0.88 && after.distances > before.distances);
    const struct calibration_answer effort = world_effort(&world, 10, 0.9f);
    CHECK_EQ_INT(after.warnings, 0);
    CHECK_EQ_INT(world_reopen(&world, path), OMENDB_OK);
    const struct outcome again = world_ask(&world, 10, 0.9f, 6.0f);
    CHECK(again.distances == after.distances && again.recall == after.recall);
    CHECK(efforts_are_equal(world_effort(&world, 10, 0.9f), effort));
    /* A checkpoint, a merge and a backup keep it. */
    CHECK_EQ_INT(world_add(&world, ROWS, 10), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    char copy[4200];
    snprintf(copy, sizeof copy, "%s-copy", path);
    support_remove(copy);
    CHECK_EQ_INT(omendb_backup(world.db, copy), OMENDB_OK);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
    CHECK_EQ_INT(world_open(&world, copy), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(world.db, "docs", NULL, &world.docs), OMENDB_OK);
    CHECK(efforts_are_equal(world_effort(&world, 10, 0.9f), effort));
    CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(a_later_calibration_replaces_the_former)
{
    struct world world;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, ROWS), OMENDB_OK);
    CHECK_EQ_INT(world_calibrate(&world, 200, 6.0f, NULL, NULL), OMENDB_OK);
    const uint64_t far = world_ask(&world, 10, 0.9f, 2.0f).distances;
    CHECK_EQ_INT(world_calibrate(&world, 200, 2.0f, NULL, NULL), OMENDB_OK);
    CHECK(world_ask(&world, 10, 0.9f, 2.0f).distances < far);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

/* The drop may be undone by a crash, whatever is published meanwhile. */
TEST(a_dropped_collection_keeps_its_curve_until_the_next_checkpoint)
{
    const char *path = support_path("dropped.omen");
    struct world world;
    CHECK_EQ_INT(world_make(&world, path, OMENDB_L2, ROWS), OMENDB_OK);
    CHECK_EQ_INT(world_calibrate(&world, 100, 6.0f, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_drop(world.db, "docs"), OMENDB_OK);
    for (int i = 0; i < 2; i++) {
        struct manifest published;
        CHECK_EQ_INT(manifest_unpack(&world.db->memory, &world.db->published, &published),
                     OMENDB_OK);
        CHECK_EQ_INT(published.collection_count, 1);
        const struct calibration *curve = published.collections[0].calibration;
        CHECK(curve != NULL && curve->count != 0);
        manifest_destroy(&world.db->memory, &published);
        platform_mutex_lock(&world.db->maintenance_mutex);
        const int code = checkpoint_republish(world.db);
        platform_mutex_unlock(&world.db->maintenance_mutex);
        CHECK_EQ_INT(code, OMENDB_OK);
    }
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST(a_calibration_ends_when_the_collection_has_doubled)
{
    struct world world;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, ROWS), OMENDB_OK);
    CHECK_EQ_INT(world_calibrate(&world, 200, 6.0f, NULL, NULL), OMENDB_OK);
    const struct calibration_answer far = world_effort(&world, 10, 0.9f);
    CHECK_EQ_INT(world_add(&world, ROWS, ROWS - 2), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    CHECK(efforts_are_equal(world_effort(&world, 10, 0.9f), far));
    CHECK_EQ_INT(world_add(&world, 2 * ROWS, 100), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    const struct outcome outcome = world_ask(&world, 10, 0.9f, 2.0f);
    CHECK(world_effort(&world, 10, 0.9f).cost < far.cost);
    CHECK_EQ_INT(outcome.warnings, 0);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

static int stop_after(void *context, uint64_t done, uint64_t total)
{
    uint64_t *calls = context;
    return ++*calls == 5 || done > total;
}

static int count_steps(void *context, uint64_t done, uint64_t total)
{
    uint64_t *steps = context;
    const int wrong = done < *steps || done > total;
    *steps = done;
    return wrong;
}

TEST(calibrating_refuses_nonsense_and_can_be_stopped)
{
    struct world world, small;
    uint64_t calls = 0, steps = 0;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, ROWS), OMENDB_OK);
    CHECK_EQ_INT(world_calibrate(&world, 49, 6.0f, NULL, NULL), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_calibrate(world.docs, NULL, 100, OMENDB_F32, NULL, NULL), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_calibrate(world.docs, vectors, 100, 77, NULL, NULL), OMENDB_INVALID);
    vectors[60][3] = NAN;
    CHECK_EQ_INT(omendb_calibrate(world.docs, vectors, 100, OMENDB_F32, NULL, NULL),
                 OMENDB_INVALID);
    CHECK_EQ_INT(world_calibrate(&world, 50, 6.0f, stop_after, &calls), OMENDB_OK);
    CHECK_EQ_INT(calls, 5);
    CHECK(atomic_load(&world.docs->collection->calibration) == NULL);
    CHECK_EQ_INT(world_calibrate(&world, 50, 6.0f, count_steps, &steps), OMENDB_OK);
    CHECK(steps > 5 && atomic_load(&world.docs->collection->calibration) != NULL);
    CHECK_EQ_INT(world_make(&small, ":memory:", OMENDB_L2, 60), OMENDB_OK);
    CHECK_EQ_INT(world_calibrate(&small, 50, 6.0f, NULL, NULL), OMENDB_OK);
    CHECK(atomic_load(&small.docs->collection->calibration) == NULL);
    CHECK_EQ_INT(world_close(&small), OMENDB_OK);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

/* From one allocation that fails to the next: every one, in slow builds ever fewer. */
static long allocations_step(long failed)
{
    return support_scale() < 1.0 ? 1 + failed / 2 : 1;
}

/* Without memory a merge goes on without a curve. */
TEST(measuring_without_memory_gives_no_curve)
{
    const char *path = support_path("forgetful.omen");
    const struct graph_held held = {0, 20, ROWS / 20};
    struct calibration curve = {.count = 0};
    struct world world;
    CHECK_EQ_INT(world_make(&world, path, OMENDB_L2, ROWS), OMENDB_OK);
    for (long failed = 0; curve.count == 0; failed += allocations_step(failed)) {
        CHECK_EQ_INT(world_reopen(&world, path), OMENDB_OK);
        const struct segment *segment = world_segment(&world);
        const struct search_target target = {segment->full, segment->graph, segment->codes, 0};
        allocations_left = failed;
        CHECK_EQ_INT(calibrate_held_rows(world.docs->collection, &target, ROWS, &held, &curve),
                     OMENDB_OK);
        CHECK((curve.count == 0) == (allocations_left == -1));
        CHECK(curve.count != 0 || failed < 100 || support_scale() < 1.0);
        allocations_left = -1;
    }
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

/* Each allocation of a calibration fails once; then of a merge that measures. */
TEST(calibrating_survives_every_failing_allocation)
{
    struct world world;
    int code = OMENDB_NOMEM;
    long failed = 0;
    CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, 1000), OMENDB_OK);
    for (; code != OMENDB_OK; failed += allocations_step(failed)) {
        allocations_left = failed;
        code = world_calibrate(&world, 50, 6.0f, NULL, NULL);
        allocations_left = -1;
        CHECK(code == OMENDB_OK || code == OMENDB_NOMEM);
        CHECK(world_ask(&world, 10, 0.9f, 2.0f).recall > 0.7);
    }
    CHECK(failed > 3 && atomic_load(&world.docs->collection->calibration) != NULL);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
    for (code = OMENDB_NOMEM, failed = 0; code != OMENDB_OK;
         failed += failed / 8 + allocations_step(failed)) {
        CHECK_EQ_INT(world_make(&world, ":memory:", OMENDB_L2, 0), OMENDB_OK);
        CHECK_EQ_INT(world_add(&world, 0, 4000), OMENDB_OK);
        allocations_left = failed;
        code = omendb_optimize(world.db, NULL, NULL);
        allocations_left = -1;
        CHECK(code == OMENDB_OK || code == OMENDB_NOMEM);
        CHECK(world_ask(&world, 10, 0.9f, 2.0f).recall > 0.7);
        CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
        CHECK_EQ_INT(world_close(&world), OMENDB_OK);
    }
}

/* Each has a share of the nearest and is walked with a share of ef. */
TEST(by_ef_segments_find_together_what_one_graph_of_all_rows_does)
{
    enum { PART = 600, EF = 64 };
    const double share = (double)ROWS / (ROWS + 2 * PART);
    struct world world;
    CHECK_EQ_INT(world_make(&world, support_path("shares"), OMENDB_L2, ROWS), OMENDB_OK);
    for (uint64_t part = 0; part < 2; part++) {
        CHECK_EQ_INT(world_add(&world, ROWS + part * PART, PART), OMENDB_OK);
        CHECK_EQ_INT(omendb_work(world.db, UINT64_MAX, NULL), OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    }
    CHECK_EQ_INT(atomic_load(&world.docs->collection->version)->segment_count, 3);
    const struct outcome parts = world_ask(&world, 10, 0.0f, 2.0f);
    CHECK_EQ_INT(parts.ef, 10 + (size_t)((EF - 10) * sqrt(share)));
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    const struct outcome whole = world_ask(&world, 10, 0.0f, 2.0f);
    CHECK_EQ_INT(whole.ef, EF);
    fprintf(stderr, "    three segments find %.4f, one %.4f\n", parts.recall, whole.recall);
    CHECK(whole.recall < 0.99 && parts.recall >= whole.recall - 0.005);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

/* Rows that came later are none of its business, also where they are in the same graph. */
TEST(by_ef_a_snapshot_walks_as_far_as_when_it_began)
{
    struct world world;
    omendb_txn *snapshot = NULL;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    uint64_t ids[10];
    float distances[10];
    size_t count;
    world = (struct world){.random = {11}};
    schema.dim = DIM;
    CHECK_EQ_INT(world_open(&world, support_path("snapshot")), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(world.db, "docs", &schema, &world.docs), OMENDB_OK);
    for (uint64_t part = 0; part < 2; part++) {
        CHECK_EQ_INT(world_add(&world, part * ROWS, ROWS), OMENDB_OK);
        CHECK_EQ_INT(omendb_work(world.db, UINT64_MAX, NULL), OMENDB_OK);
        if (part == 0)
            CHECK_EQ_INT(omendb_txn_begin(world.db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    }
    query.vector = vectors[0];
    query.explain = &explain;
    CHECK_EQ_INT(omendb_search(world.docs, snapshot, &query, ids, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(explain.segments, 1);
    CHECK_EQ_INT(explain.ef, 64);
    omendb_txn_rollback(snapshot);
    CHECK_EQ_INT(world_close(&world), OMENDB_OK);
}

TEST_MAIN(by_ef_a_snapshot_walks_as_far_as_when_it_began,
          by_ef_segments_find_together_what_one_graph_of_all_rows_does,
          a_query_by_a_record_is_promised_what_its_k_is,
          the_rows_that_were_added_last_do_not_decide_the_effort,
          held_rows_are_spread_whatever_the_order, measuring_without_memory_gives_no_curve,
          recall_is_kept_on_unseen_queries_l2, recall_is_kept_on_unseen_queries_cosine,
          recall_is_kept_on_unseen_queries_inner_product,
          recall_is_kept_after_deletes_and_replacements, a_batch_takes_the_same_effort,
          explain_warns_outside_of_what_was_measured,
          a_graph_without_a_curve_takes_the_effort_of_another,
          without_any_curve_the_effort_grows_with_the_recall_from_that_of_the_schema,
          small_collections_are_compared_as_a_whole, nonsense_is_refused,
          a_curve_survives_reopening, a_curve_is_carried_over_until_the_rows_have_doubled,
          optimize_measures_a_graph_that_was_built_in_memory,
          optimize_with_a_few_new_rows_measures_a_graph_that_has_no_curve,
          a_graph_that_cannot_be_measured_is_not_rebuilt_again_and_again,
          a_curve_of_the_callers_queries_is_not_replaced, a_curve_that_is_none_is_not_taken,
          answers_lie_between_the_entries, the_rungs_of_stretch_follow_what_is_missed,
          no_rung_is_tried_that_could_tell_nothing_more,
          a_recall_is_given_by_a_stretch_where_there_is_one,
          a_recall_beyond_the_stretches_is_given_by_an_ef, the_kind_that_costs_less_is_taken,
          between_two_k_the_kinds_are_compared_by_what_they_cost_there,
          of_two_kinds_the_one_that_reaches_more_is_taken, the_cost_is_what_searches_compute,
          a_search_by_stretch_is_promised_what_was_measured, a_hostile_curve_in_a_file_is_none,
          calibrating_keeps_the_recall_of_other_queries, a_later_calibration_replaces_the_former,
          a_dropped_collection_keeps_its_curve_until_the_next_checkpoint,
          a_calibration_ends_when_the_collection_has_doubled,
          calibrating_refuses_nonsense_and_can_be_stopped,
          calibrating_survives_every_failing_allocation)
