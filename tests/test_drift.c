/* test_drift.c: vectors that no range of codes serves, vectors that leave the range of those before
 * them, and memory that lacks for a moment: what they cost must end. */
#include "internals.h"

#include "support.h"
#include "test.h"

#define ROWS  4000
#define BATCH 500
#define K     10

/* Tells the vectors of a collection: offset + noise in every element. */
struct kind {
    uint32_t dim;
    float offset, noise; /* widths */
    float zeros;         /* part of the elements */
    int has_codes;
};

static float unit(struct support_random *random)
{
    return (float)(support_next(random) >> 40) / (float)(1 << 24);
}

static void kind_fill(const struct kind *kind, struct support_random *random, uint64_t count,
                      float *vectors)
{
    for (uint64_t i = 0; i < count; i++) {
        const float offset = kind->offset * unit(random);
        for (uint32_t d = 0; d < kind->dim; d++)
            vectors[i * kind->dim + d] =
                unit(random) < kind->zeros ? 0.0f : offset + kind->noise * unit(random);
    }
}

static int world_open(const char *path, const omendb_options *options, uint32_t dim, omendb **db,
                      omendb_collection **collection)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = dim;
    schema.M = 8;
    schema.ef_construction = 32;
    *collection = NULL;
    int status = omendb_open(path, options, db);
    return status == OMENDB_OK ? omendb_collection_open_or_create(*db, "c", &schema, collection)
                               : status;
}

static int add(omendb_collection *collection, const struct kind *kind,
               struct support_random *random, uint64_t count)
{
    static float vectors[BATCH * 128];
    int status = OMENDB_OK;
    for (uint64_t done = 0; done < count && status == OMENDB_OK; done += BATCH) {
        kind_fill(kind, random, BATCH, vectors);
        status = omendb_add_batch(collection, NULL, BATCH, NULL, vectors, OMENDB_F32, NULL);
    }
    return status;
}

/* All that the background will do by itself. */
static void settle(omendb *db)
{
    for (int more = 1; more;)
        if (omendb_work(db, 400000, &more) != OMENDB_OK)
            return;
}

static uint64_t unindexed(omendb_collection *collection)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    return omendb_collection_get_stats(collection, &stats) == OMENDB_OK ? stats.unindexed_rows
                                                                        : UINT64_MAX;
}

/* How many of the K nearest a search with ef 64 finds, of 1; the rows that it scanned. */
static double recall(omendb_collection *collection, const struct kind *kind,
                     struct support_random *random, uint64_t *scanned)
{
    float vector[128], farthest[K], found[K];
    uint64_t ids[K];
    size_t count, good = 0;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    query.vector = vector;
    query.k = K;
    for (int i = 0; i < 40; i++) {
        kind_fill(kind, random, 1, vector);
        query.exact = 1;
        query.ef = 0;
        query.explain = NULL;
        if (omendb_search(collection, NULL, &query, ids, farthest, &count) != OMENDB_OK)
            return 0.0;
        query.exact = 0;
        query.ef = 64;
        query.explain = &explain;
        if (omendb_search(collection, NULL, &query, ids, found, &count) != OMENDB_OK)
            return 0.0;
        for (size_t j = 0; j < count; j++)
            good += found[j] <= farthest[K - 1];
    }
    *scanned = explain.scanned_rows;
    return (double)good / (40.0 * K);
}

/* Whether any memtable or segment has codes. */
static int any_codes(omendb_collection *collection)
{
    uint64_t commit;
    int any = 0;
    struct version *version = version_acquire_newest(collection->collection, &commit);
    for (uint32_t i = 0; i < version->memtable_count; i++)
        any |= version->memtables[i]->codes.step != 0.0f;
    for (uint32_t i = 0; i < version->segment_count; i++)
        any |= version->segments[i]->codes.step != 0.0f;
    version_release(version);
    return any;
}

static uint32_t sources(omendb_collection *collection)
{
    uint64_t commit;
    struct version *version = version_acquire_newest(collection->collection, &commit);
    uint32_t count = version->memtable_count + version->segment_count;
    version_release(version);
    return count;
}

TEST(every_kind_of_vectors_gets_a_graph_that_finds)
{
    static const struct kind kinds[] = {
        {1, 0.0f, 1.0f, 0.0f, 0},   {2, 0.0f, 1.0f, 0.0f, 0},   {3, 0.0f, 1.0f, 0.0f, 0},
        {4, 0.0f, 1.0f, 0.0f, 0},   {16, 1.0f, 0.01f, 0.0f, 0}, {32, 1.0f, 0.01f, 0.0f, 0},
        {64, 1.0f, 0.01f, 0.0f, 0}, {12, 0.0f, 1.0f, 0.0f, 1},  {48, 0.0f, 1.0f, 0.7f, 1}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        struct support_random random = {i};
        omendb_options options = OMENDB_OPTIONS_INIT;
        omendb_collection *collection;
        omendb *db;
        uint64_t scanned = 0, rows = kinds[i].dim > 8 ? ROWS / 2 : ROWS;
        double found;
        options.threads = 0;
        CHECK_EQ_INT(world_open(":memory:", &options, kinds[i].dim, &db, &collection), OMENDB_OK);
        CHECK_EQ_INT(add(collection, &kinds[i], &random, rows), OMENDB_OK);
        settle(db);
        CHECK(sources(collection) <= 3);
        for (int sealed = 0; sealed < 2; sealed++) {
            found = recall(collection, &kinds[i], &random, &scanned);
            if (getenv("OMENDB_TEST_VERBOSE") != NULL)
                printf("dim %u offset %g: recall %.3f scanned %u codes %d\n", kinds[i].dim,
                       (double)kinds[i].offset, found, (unsigned)scanned, any_codes(collection));
            CHECK(found > (kinds[i].dim == 48 ? 0.75 : 0.95));
            CHECK(scanned <= rows / 10 + BATCH);
            CHECK_EQ_INT(any_codes(collection), kinds[i].has_codes);
            CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
            CHECK(unindexed(collection) <= BATCH); /* what was linked is kept */
        }
        CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
        CHECK_EQ_INT(unindexed(collection), 0);
        omendb_collection_close(collection);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    }
}

/* Vectors so short that no codes tell them apart, a tenth of all: under the inner product the codes
 * of the others go on serving, and every drift is looked into and forgiven. */
TEST(a_drift_that_no_other_range_would_mend_is_forgiven)
{
    const struct kind long_ones = {16, 0.0f, 1.0f, 0.0f, 1},
                      short_ones = {16, 0.0f, 0.01f, 0.0f, 1};
    struct support_random random = {7};
    static float vectors[BATCH * 16];
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *collection;
    omendb *db;
    options.threads = 0;
    schema.dim = 16;
    schema.metric = OMENDB_INNER_PRODUCT;
    CHECK_EQ_INT(omendb_open(":memory:", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "c", &schema, &collection), OMENDB_OK);
    for (int batch = 0; batch < 8; batch++) {
        kind_fill(&long_ones, &random, BATCH, vectors);
        for (int i = 0; i < BATCH; i += 10)
            kind_fill(&short_ones, &random, 1, vectors + (size_t)i * 16);
        CHECK_EQ_INT(omendb_add_batch(collection, NULL, BATCH, NULL, vectors, OMENDB_F32, NULL),
                     OMENDB_OK);
    }
    settle(db);
    CHECK(any_codes(collection));
    CHECK_EQ_INT(sources(collection), 1);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* Rows of a memtable whose codes do not fit any more count as what they are, and are brought into a
 * graph by a checkpoint and a merge that nobody asks for. */
TEST(rows_that_drifted_are_counted_and_get_a_graph)
{
    const struct kind before = {32, 0.0f, 1.0f, 0.0f, 1}, after = {32, 0.0f, 100.0f, 0.0f, 1};
    struct support_random random = {9};
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_collection *collection;
    omendb *db;
    uint64_t scanned = 0;
    options.threads = 0;
    for (int small = 0; small < 2; small++) {
        options.tail_limit = small ? UINT64_C(64) << 20 : UINT64_C(256) << 10;
        CHECK_EQ_INT(world_open(":memory:", &options, 32, &db, &collection), OMENDB_OK);
        CHECK_EQ_INT(add(collection, &before, &random, ROWS), OMENDB_OK);
        settle(db);
        CHECK_EQ_INT(unindexed(collection), 0);
        CHECK_EQ_INT(add(collection, &after, &random, BATCH), OMENDB_OK);
        if (small) { /* under the limit they stay, and are counted */
            settle(db);
            CHECK_EQ_INT(unindexed(collection), ROWS + BATCH);
        }
        CHECK_EQ_INT(add(collection, &after, &random, BATCH), OMENDB_OK);
        settle(db);
        if (!small)
            CHECK_EQ_INT(unindexed(collection), 0);
        CHECK(recall(collection, &after, &random, &scanned) > 0.9);
        CHECK(small ? scanned >= ROWS : scanned == 0);
        omendb_collection_close(collection);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    }
}

/* ------------------------------------------------------------------ memory */

struct hook {
    size_t refused; /* blocks of so many bytes, or up to 100 more for their alignment; 0: none */
    int logged;
};

static int hook_refuses(const void *context, size_t size)
{
    const struct hook *hook = context;
    return hook->refused != 0 && size >= hook->refused && size <= hook->refused + 100;
}

static void *hook_alloc(void *context, size_t size)
{
    return hook_refuses(context, size) ? NULL : malloc(size);
}

static void *hook_resize(void *context, void *block, size_t old_size, size_t size)
{
    (void)old_size;
    return hook_refuses(context, size) ? NULL : realloc(block, size);
}

static void hook_release(void *context, void *block, size_t size)
{
    (void)context;
    (void)size;
    free(block);
}

static void hook_log(void *context, int code, const char *message)
{
    struct hook *hook = context;
    hook->logged += code == OMENDB_NOMEM && strstr(message, "codes") != NULL;
}

#define STARVED_DIM  128
#define STARVED_ROWS 3000

static void starved_options(omendb_options *options, omendb_allocator *allocator, struct hook *hook)
{
    *allocator = (omendb_allocator){.struct_size = sizeof *allocator,
                                    .alloc = hook_alloc,
                                    .resize = hook_resize,
                                    .release = hook_release,
                                    .context = hook};
    options->threads = 0;
    options->sync = OMENDB_SYNC_OFF;
    options->allocator = allocator;
    options->log = hook_log;
    options->log_context = hook;
    options->tail_limit = UINT64_C(1) << 30;
}

TEST(sealing_needs_no_memory_for_all_codes_at_once)
{
    const struct kind kind = {STARVED_DIM, 0.0f, 1.0f, 0.0f, 1};
    struct support_random random = {3};
    struct hook hook = {0, 0};
    omendb_allocator allocator;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_collection *collection;
    omendb *db;
    starved_options(&options, &allocator, &hook);
    CHECK_EQ_INT(world_open(support_path("sealing"), &options, STARVED_DIM, &db, &collection),
                 OMENDB_OK);
    CHECK_EQ_INT(add(collection, &kind, &random, 4000), OMENDB_OK);
    settle(db);
    hook.refused = 4000 * STARVED_DIM;
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    hook.refused = 0;
    CHECK(any_codes(collection));
    CHECK_EQ_INT(sources(collection), 1);
    CHECK_EQ_INT(hook.logged, 0);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(codes_that_lacked_memory_once_are_made_later)
{
    const struct kind kind = {STARVED_DIM, 0.0f, 1.0f, 0.0f, 1};
    for (int by_itself = 0; by_itself < 2; by_itself++) {
        struct support_random random = {3};
        struct hook hook = {0, 0};
        omendb_allocator allocator;
        omendb_options options = OMENDB_OPTIONS_INIT;
        omendb_collection *collection;
        omendb *db;
        const char *path = support_path(by_itself ? "starved-alone" : "starved");
        starved_options(&options, &allocator, &hook);
        CHECK_EQ_INT(world_open(path, &options, STARVED_DIM, &db, &collection), OMENDB_OK);
        CHECK_EQ_INT(add(collection, &kind, &random, STARVED_ROWS), OMENDB_OK);
        /* Nothing but the codes of a merge is as large. */
        hook.refused = STARVED_ROWS * STARVED_DIM;
        CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
        CHECK(!any_codes(collection));
        CHECK_EQ_INT(unindexed(collection), 0);
        CHECK(hook.logged > 0);
        settle(db); /* the background gives up after some merges */
        CHECK(hook.logged < 10);
        hook.refused = 0;
        if (by_itself) {
            omendb_collection_close(collection);
            CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
            CHECK_EQ_INT(world_open(path, &options, STARVED_DIM, &db, &collection), OMENDB_OK);
            settle(db);
        } else {
            CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
        }
        CHECK(any_codes(collection));
        omendb_collection_close(collection);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    }
}

/* Vectors that no range serves are not merged again and again for codes. */
TEST(vectors_without_a_range_are_at_rest)
{
    const struct kind kind = {16, 1.0f, 0.005f, 0.0f, 0};
    struct support_random random = {4};
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_stats before = OMENDB_STATS_INIT, after = OMENDB_STATS_INIT;
    omendb_collection *collection;
    omendb *db;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    CHECK_EQ_INT(world_open(support_path("rest"), &options, 16, &db, &collection), OMENDB_OK);
    CHECK_EQ_INT(add(collection, &kind, &random, 2000), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    CHECK(!any_codes(collection));
    CHECK_EQ_INT(omendb_get_stats(db, &before), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    settle(db);
    CHECK_EQ_INT(omendb_get_stats(db, &after), OMENDB_OK);
    CHECK_EQ_INT(after.merges, before.merges);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* Building in bulk is stopped from inside; whoever waits is told why. */
TEST(a_merge_that_closing_stops_says_so)
{
    const struct kind kind = {32, 0.0f, 1.0f, 0.0f, 1};
    struct support_random random = {5};
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db;
    omendb_collection *collection;
    int merged;
    options.threads = 0;
    options.tail_limit = UINT64_C(1) << 30;
    CHECK_EQ_INT(world_open(support_path("stopped"), &options, kind.dim, &db, &collection),
                 OMENDB_OK);
    CHECK_EQ_INT(add(collection, &kind, &random, ROWS), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    atomic_store(&db->stopping, 1);
    CHECK_EQ_INT(work_merge_begin(db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(compact_run(db, &collection->collection, 1, 1, NULL, NULL, &merged), OMENDB_DONE);
    work_merge_end(db);
    CHECK(strstr(error_text(), "closing") != NULL);
    atomic_store(&db->stopping, 0);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST_MAIN(a_merge_that_closing_stops_says_so, every_kind_of_vectors_gets_a_graph_that_finds,
          a_drift_that_no_other_range_would_mend_is_forgiven,
          rows_that_drifted_are_counted_and_get_a_graph,
          sealing_needs_no_memory_for_all_codes_at_once,
          codes_that_lacked_memory_once_are_made_later, vectors_without_a_range_are_at_rest)
