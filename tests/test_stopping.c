/* test_stopping.c: a merge and a calibration that are told to stop do so at each look, whenever
 * that is: nothing that was stored changes, what was told never falls, and the next try goes to the
 * end. */
#define _DEFAULT_SOURCE 1 /* lstat, mkdtemp */

#include "support.h"
#include "test.h"

#define STOPPING_DIM  4
#define STOPPING_ROWS 12000 /* more than two looks at each pass of a merge */

struct stopping_plan {
    uint64_t looks, at; /* stops at this look, counted from 1; 0: never */
    uint64_t done;
    int fell;
};

static int stopping_look(void *context, uint64_t done, uint64_t total)
{
    struct stopping_plan *plan = context;
    plan->looks++;
    plan->fell |= done < plan->done || done > total;
    plan->done = done;
    return plan->looks == plan->at;
}

static omendb *stopping_db;
static omendb_collection *stopping_docs;

/* One merged segment of so many rows, the others without a graph. */
static int stopping_begin(size_t merged)
{
    static float vectors[STOPPING_ROWS * STOPPING_DIM];
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    schema.dim = STOPPING_DIM;
    schema.M = 4;
    schema.ef_construction = 16;
    for (uint64_t i = 0; i < STOPPING_ROWS; i++)
        support_vector(i, STOPPING_DIM, vectors + i * STOPPING_DIM);
    int status = omendb_open(support_path("stopping"), &options, &stopping_db);
    if (status == OMENDB_OK)
        status = omendb_collection_create(stopping_db, "docs", &schema, &stopping_docs);
    if (status == OMENDB_OK)
        status = omendb_add_batch(stopping_docs, NULL, merged, NULL, vectors, OMENDB_F32, NULL);
    if (status == OMENDB_OK)
        status = omendb_optimize(stopping_db, NULL, NULL);
    if (status == OMENDB_OK)
        status = omendb_add_batch(stopping_docs, NULL, STOPPING_ROWS - merged, NULL, vectors,
                                  OMENDB_F32, NULL);
    return status;
}

static int stopping_end(void)
{
    omendb_collection_close(stopping_docs);
    return omendb_close(stopping_db);
}

static void stopping_merge(size_t merged, uint64_t least)
{
    struct stopping_plan plan = {0};
    uint64_t digest = 0, after = 0, stopped = 0;
    CHECK_EQ_INT(stopping_begin(merged), OMENDB_OK);
    CHECK_EQ_INT(support_digest(stopping_db, NULL, &digest), OMENDB_OK);
    for (uint64_t at = 1; at < 1000; at += 1 + at / 4) {
        plan = (struct stopping_plan){.at = at};
        const int status = omendb_optimize(stopping_db, stopping_look, &plan);
        CHECK(!plan.fell);
        CHECK_EQ_INT(status, OMENDB_OK);
        if (plan.looks < at)
            break;
        CHECK_EQ_INT(plan.looks, at); /* it went on for no other look */
        stopped++;
        CHECK_EQ_INT(support_digest(stopping_db, NULL, &after), OMENDB_OK);
        CHECK(after == digest);
    }
    CHECK(stopped >= least);
    CHECK_EQ_INT(support_check(stopping_db), OMENDB_OK);
    CHECK_EQ_INT(stopping_end(), OMENDB_OK);
}

/* The graph is built in bulk, or kept and the other rows inserted. */
TEST(a_merge_stops_at_any_look_and_changes_nothing)
{
    stopping_merge(STOPPING_ROWS / 10, 3);
    stopping_merge(STOPPING_ROWS / 10 * 6, 2);
}

TEST(a_calibration_stops_at_any_look_and_keeps_the_former_curve)
{
    float queries[100 * STOPPING_DIM];
    omendb_collection_stats before = OMENDB_COLLECTION_STATS_INIT,
                            after = OMENDB_COLLECTION_STATS_INIT;
    struct stopping_plan plan = {0};
    CHECK_EQ_INT(stopping_begin(STOPPING_ROWS / 10), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(stopping_db, NULL, NULL), OMENDB_OK);
    for (uint64_t i = 0; i < 100; i++)
        support_vector(i + 50000, STOPPING_DIM, queries + i * STOPPING_DIM);
    CHECK_EQ_INT(omendb_collection_get_stats(stopping_docs, &before), OMENDB_OK);
    for (uint64_t at = 1; at < 1000; at++) {
        plan = (struct stopping_plan){.at = at};
        const int status =
            omendb_calibrate(stopping_docs, queries, 100, OMENDB_F32, stopping_look, &plan);
        CHECK(!plan.fell);
        CHECK_EQ_INT(omendb_collection_get_stats(stopping_docs, &after), OMENDB_OK);
        if (plan.looks < at) {
            CHECK_EQ_INT(status, OMENDB_OK);
            CHECK_EQ_INT(after.recall_queries, 100);
            break;
        }
        CHECK_EQ_INT(plan.looks, at);
        CHECK(after.recall == before.recall && after.recall_queries == before.recall_queries);
    }
    CHECK(plan.at > 1);
    CHECK_EQ_INT(stopping_end(), OMENDB_OK);
}

TEST_MAIN(a_merge_stops_at_any_look_and_changes_nothing,
          a_calibration_stops_at_any_look_and_keeps_the_former_curve)
