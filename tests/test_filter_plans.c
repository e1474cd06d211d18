/* test_filter_plans.c: whichever way a search under a filter takes, as many of the true hits are
 * found as without one. The rows are those that deceive a planner: pictures of one video, closer
 * together than codes of 8 bits tell apart, and filters that let whole clusters through. */
#define _GNU_SOURCE
#include "support.h"
#include "test.h"

#include <math.h>

#define PLANS_K        10
#define PLANS_QUERIES  60
#define VIDEO_DIM      256
#define VIDEO_ROWS     4500
#define VIDEO_PICTURES 1800 /* of the rows: those with "video": 17 */
#define PLACES_DIM     32
#define PLACES_ROWS    12000
#define PLACES         40

static struct {
    char path[4352];
    omendb *db;
    omendb_collection *docs;
} plans;

/* About of the normal distribution. */
static float plans_normal(struct support_random *random)
{
    float sum = -6.0f;
    for (int i = 0; i < 12; i++)
        sum += (float)support_below(random, 1000000) / 1000000.0f;
    return sum;
}

static int plans_begin(const char *name, uint32_t dim)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    snprintf(plans.path, sizeof plans.path, "%s", support_path(name));
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.tail_limit = 1u << 30;
    schema.dim = dim;
    schema.M = 8;
    schema.ef_construction = 60;
    const int status = omendb_open(plans.path, &options, &plans.db);
    return status != OMENDB_OK ? status
                               : omendb_collection_create(plans.db, "docs", &schema, &plans.docs);
}

static int plans_end(void)
{
    omendb_collection_close(plans.docs);
    const int status = omendb_close(plans.db);
    support_remove(plans.path);
    return status;
}

/* So that no memory is there that an earlier call left. */
static int plans_reopen(void)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_collection_close(plans.docs);
    int status = omendb_close(plans.db);
    options.threads = 0;
    if (status == OMENDB_OK)
        status = omendb_open(plans.path, &options, &plans.db);
    return status != OMENDB_OK ? status
                               : omendb_collection_open(plans.db, "docs", NULL, &plans.docs);
}

static int plans_put(omendb_txn *txn, uint64_t id, const float *vector, const char *metadata)
{
    omendb_record record = OMENDB_RECORD_INIT;
    record.id = id;
    record.vector = vector;
    record.metadata = metadata;
    return omendb_put(plans.docs, txn, &record, NULL);
}

/* A picture of the video, or anything. */
static void video_vector(uint64_t salt, int picture, float *vector)
{
    struct support_random base = {17}, random = {support_mix(salt)};
    for (int i = 0; i < VIDEO_DIM; i++) {
        const float centre = plans_normal(&base), noise = plans_normal(&random);
        vector[i] = picture ? centre + 0.005f * noise : noise;
    }
}

static int video_fill(void)
{
    float vector[VIDEO_DIM];
    omendb_txn *txn = NULL;
    int status = omendb_txn_begin(plans.db, OMENDB_READ_WRITE, &txn);
    for (uint64_t i = 0; i < VIDEO_ROWS && status == OMENDB_OK; i++) {
        const int picture = i < VIDEO_PICTURES;
        video_vector(i, picture, vector);
        status = plans_put(txn, i * 7919 % VIDEO_ROWS, vector,
                           picture ? "{\"video\":17}" : "{\"video\":0}");
    }
    status = status == OMENDB_OK ? omendb_txn_commit(txn) : status;
    return status == OMENDB_OK ? omendb_optimize(plans.db, NULL, NULL) : status;
}

static void place_vector(uint64_t salt, uint64_t *place, float *vector)
{
    struct support_random random = {support_mix(salt + 500000)};
    *place = support_below(&random, PLACES) * support_below(&random, PLACES) / PLACES;
    for (uint64_t i = 0; i < PLACES_DIM; i++) {
        struct support_random centre = {support_mix(*place * PLACES_DIM + i)};
        vector[i] = plans_normal(&centre) + 0.7f * plans_normal(&random);
    }
}

static int places_fill(void)
{
    float vector[PLACES_DIM];
    char json[64];
    uint64_t place;
    omendb_txn *txn = NULL;
    int status = omendb_txn_begin(plans.db, OMENDB_READ_WRITE, &txn);
    for (uint64_t id = 0; id < PLACES_ROWS && status == OMENDB_OK; id++) {
        place_vector(id, &place, vector);
        sprintf(json, "{\"place\":%llu,\"any\":%llu}", (unsigned long long)place,
                (unsigned long long)(support_mix(id) % 1000));
        status = plans_put(txn, id, vector, json);
    }
    status = status == OMENDB_OK ? omendb_txn_commit(txn) : status;
    return status == OMENDB_OK ? omendb_optimize(plans.db, NULL, NULL) : status;
}

/* How many of the true hits a search of the terms finds; -1: it fails, or has too few. */
static int plans_found(omendb_query query, uint64_t *distances)
{
    uint64_t near[PLANS_K], all[PLANS_K];
    size_t near_count = 0, all_count = 0;
    int found = 0;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    query.explain = &explain;
    if (omendb_search(plans.docs, NULL, &query, near, NULL, &near_count) != OMENDB_OK)
        return -1;
    *distances += explain.distances;
    query.explain = NULL;
    query.exact = 1;
    query.ef = 0;
    query.recall = query.stretch = 0;
    if (omendb_search(plans.docs, NULL, &query, all, NULL, &all_count) != OMENDB_OK ||
        near_count != all_count)
        return -1;
    for (size_t i = 0; i < near_count; i++)
        for (size_t j = 0; j < all_count; j++)
            found += near[i] == all[j];
    return found;
}

/* Mean recall@10, and the distances of a search; -10: one fails. text: NULL: no filter. picture: of
 * the queries, -1: they are places. */
static double plans_recall(const char *text, omendb_query query, int picture, uint64_t *distances)
{
    float vector[VIDEO_DIM];
    omendb_filter *filter = NULL;
    int found = 0;
    uint64_t place;
    *distances = 0;
    if (text != NULL && omendb_filter_compile(plans.db, text, &filter) != OMENDB_OK)
        return -10;
    query.vector = vector;
    query.filter = filter;
    query.k = PLANS_K;
    for (uint64_t i = 0; i < PLANS_QUERIES && found >= 0; i++) {
        if (picture < 0)
            place_vector(i + PLACES_ROWS, &place, vector);
        else
            video_vector(i + VIDEO_ROWS, picture, vector);
        const int these = plans_found(query, distances);
        found = these < 0 ? -1 : found + these;
    }
    omendb_filter_free(filter);
    *distances /= PLANS_QUERIES;
    return found < 0 ? -10 : (double)found / (PLANS_QUERIES * PLANS_K);
}

TEST(rows_closer_together_than_codes_tell_are_found_under_a_filter)
{
    omendb_query by_ef = OMENDB_QUERY_INIT, by_recall = OMENDB_QUERY_INIT;
    uint64_t distances;
    by_ef.ef = 64;
    by_recall.recall = 0.99f;
    CHECK_EQ_INT(plans_begin("plans_video", VIDEO_DIM), OMENDB_OK);
    CHECK_EQ_INT(video_fill(), OMENDB_OK);
    for (int picture = 0; picture < 2; picture++) {
        const double ef_all = plans_recall(NULL, by_ef, picture, &distances),
                     recall_all = plans_recall(NULL, by_recall, picture, &distances);
        CHECK(plans_recall("video = 17", by_ef, picture, &distances) >= ef_all - 0.005);
        CHECK(plans_recall("video = 17", by_recall, picture, &distances) >= recall_all - 0.005);
    }
    CHECK_EQ_INT(plans_end(), OMENDB_OK);
}

/* What a batch puts together is compared by codes and by vectors as where it lies. */
TEST(a_batch_over_many_listed_rows_finds_what_exact_searches_find)
{
    static float vectors[PLANS_QUERIES * VIDEO_DIM];
    static uint64_t ids[PLANS_QUERIES * PLANS_K], exact[PLANS_QUERIES * PLANS_K];
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_filter *filter = NULL;
    size_t found = 0;
    CHECK_EQ_INT(plans_begin("plans_batch", VIDEO_DIM), OMENDB_OK);
    CHECK_EQ_INT(video_fill(), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_compile(plans.db, "video = 0", &filter), OMENDB_OK);
    for (uint64_t i = 0; i < PLANS_QUERIES; i++)
        video_vector(i + VIDEO_ROWS, 0, vectors + i * VIDEO_DIM);
    query.filter = filter;
    query.k = PLANS_K;
    query.ef = 64;
    CHECK_EQ_INT(
        omendb_search_batch(plans.docs, NULL, &query, vectors, PLANS_QUERIES, ids, NULL, NULL),
        OMENDB_OK);
    query.ef = 0;
    query.exact = 1;
    CHECK_EQ_INT(
        omendb_search_batch(plans.docs, NULL, &query, vectors, PLANS_QUERIES, exact, NULL, NULL),
        OMENDB_OK);
    for (size_t i = 0; i < PLANS_QUERIES * PLANS_K; i++)
        for (size_t j = i / PLANS_K * PLANS_K; j < (i / PLANS_K + 1) * PLANS_K; j++)
            found += ids[i] == exact[j];
    CHECK(found >= PLANS_QUERIES * PLANS_K * 99 / 100);
    omendb_filter_free(filter);
    CHECK_EQ_INT(plans_end(), OMENDB_OK);
}

/* What is kept for comparing again is more than the effort asks for. */
TEST(few_hits_of_many_that_are_listed_stay_within_their_memory)
{
    static const uint32_t terms[][2] = {{1, 1}, {5, 9}, {10, 10}, {10, 64}, {40, 41}};
    float vector[VIDEO_DIM];
    uint64_t ids[64];
    omendb_filter *filter = NULL;
    CHECK_EQ_INT(plans_begin("plans_few", VIDEO_DIM), OMENDB_OK);
    CHECK_EQ_INT(video_fill(), OMENDB_OK);
    for (size_t i = 0; i < sizeof terms / sizeof *terms; i++) {
        size_t count = 0;
        omendb_query query = OMENDB_QUERY_INIT;
        CHECK_EQ_INT(plans_reopen(), OMENDB_OK);
        CHECK_EQ_INT(omendb_filter_compile(plans.db, "video = 17", &filter), OMENDB_OK);
        video_vector(i + VIDEO_ROWS, 0, vector);
        query.vector = vector;
        query.filter = filter;
        query.k = terms[i][0];
        query.ef = terms[i][1];
        CHECK_EQ_INT(omendb_search(plans.docs, NULL, &query, ids, NULL, &count), OMENDB_OK);
        CHECK_EQ_INT(count, terms[i][0]);
        omendb_filter_free(filter);
    }
    CHECK_EQ_INT(plans_end(), OMENDB_OK);
}

/* Where whole clusters are hidden, some queries' hits all lie away from them. */
TEST(hits_that_lie_away_from_the_query_are_found)
{
    static const char *const texts[] = {"place > 12", "place < 2", "any < 420", "any < 50",
                                        "place > 12 AND any < 500"};
    omendb_query by_recall = OMENDB_QUERY_INIT, by_ef = OMENDB_QUERY_INIT;
    uint64_t all_distances, distances;
    by_recall.recall = 0.98f;
    by_ef.ef = 48;
    CHECK_EQ_INT(plans_begin("plans_places", PLACES_DIM), OMENDB_OK);
    CHECK_EQ_INT(places_fill(), OMENDB_OK);
    const double recall_all = plans_recall(NULL, by_recall, -1, &all_distances);
    const double ef_all = plans_recall(NULL, by_ef, -1, &all_distances);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const double recall = plans_recall(texts[i], by_recall, -1, &distances);
        CHECK(recall >= recall_all - 0.015);
        const double ef = plans_recall(texts[i], by_ef, -1, &distances);
        CHECK(ef >= ef_all - 0.03);
        CHECK(distances < PLACES_ROWS);
    }
    CHECK_EQ_INT(plans_end(), OMENDB_OK);
}

/* Of the records that are there: those that were deleted and still lie in the segment count
 * neither as matches nor as others. */
TEST(explain_tells_the_share_of_the_records_that_are_left)
{
    static const struct {
        const char *text;
        int exact;
    } asked[] = {{"place < 20", 1}, {"place < 20", 0}, {"any < 300", 1}, {"any < 30", 0}};
    float vector[PLACES_DIM];
    uint64_t place, deleted = 0, left = 0, match = 0, ids[PLANS_K];
    omendb_filter *filter = NULL;
    CHECK_EQ_INT(plans_begin("plans_share", PLACES_DIM), OMENDB_OK);
    CHECK_EQ_INT(places_fill(), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_compile(plans.db, "place >= 20", &filter), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete_matching(plans.docs, NULL, filter, NULL, NULL, &deleted), OMENDB_OK);
    omendb_filter_free(filter);
    CHECK(deleted > PLACES_ROWS / 10);
    CHECK_EQ_INT(omendb_count(plans.docs, NULL, &left), OMENDB_OK);
    CHECK_EQ_INT(left, PLACES_ROWS - deleted);
    place_vector(PLACES_ROWS, &place, vector);
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        size_t found = 0;
        omendb_explain explain = OMENDB_EXPLAIN_INIT;
        omendb_query query = OMENDB_QUERY_INIT;
        CHECK_EQ_INT(omendb_filter_compile(plans.db, asked[i].text, &filter), OMENDB_OK);
        CHECK_EQ_INT(omendb_count_matching(plans.docs, NULL, filter, NULL, NULL, &match),
                     OMENDB_OK);
        query.vector = vector;
        query.k = PLANS_K;
        query.filter = filter;
        query.exact = (uint32_t)asked[i].exact;
        query.explain = &explain;
        CHECK_EQ_INT(omendb_search(plans.docs, NULL, &query, ids, NULL, &found), OMENDB_OK);
        const double share = (double)match / (double)left;
        CHECK(fabs(explain.selectivity - share) <= (asked[i].exact ? 0.0001 : 0.05));
        omendb_filter_free(filter);
    }
    CHECK_EQ_INT(plans_end(), OMENDB_OK);
}

TEST_MAIN(rows_closer_together_than_codes_tell_are_found_under_a_filter,
          a_batch_over_many_listed_rows_finds_what_exact_searches_find,
          few_hits_of_many_that_are_listed_stay_within_their_memory,
          hits_that_lie_away_from_the_query_are_found,
          explain_tells_the_share_of_the_records_that_are_left)
