/* test_batch_filters.c: the queries of a batch share what its condition lets through, and yet each
 * gives what the model finds: whatever share matches, in one segment or in several parts, in a
 * transaction, and after commits between two batches. */
#include "asking.h"

#define BATCH_QUERIES 48
#define BATCH_K       20

static float batch_vectors[BATCH_QUERIES * ASKING_DIM];
static uint64_t batch_ids[BATCH_QUERIES * BATCH_K];
static float batch_distances[BATCH_QUERIES * BATCH_K];
static size_t batch_counts[BATCH_QUERIES];

static void batch_make_queries(void)
{
    for (uint64_t i = 0; i < BATCH_QUERIES; i++)
        support_vector(i + 4000, ASKING_DIM, batch_vectors + i * ASKING_DIM);
}

/* How many of the model's nearest a row of the batch has; -1: it has another number of hits, or one
 * of another distance than its place in the model's order allows. */
static int batch_true_hits(size_t i, uint64_t below)
{
    static struct asking_hit hits[ASKING_MANY];
    const size_t all = asking_sort(batch_vectors + i * ASKING_DIM, below, hits);
    const size_t wanted = all < BATCH_K ? all : BATCH_K;
    int found = 0;
    if (batch_counts[i] != wanted)
        return -1;
    for (size_t j = 0; j < wanted; j++) {
        if (batch_distances[i * BATCH_K + j] < hits[j].distance * 0.9999f)
            return -1;
        for (size_t h = 0; h < wanted; h++)
            found += hits[h].id == batch_ids[i * BATCH_K + j];
    }
    return found;
}

/* The mean share of the true hits, of a batch under `size < below`; -1: a query is wrong. */
static double batch_recall(omendb_txn *txn, uint64_t below, omendb_query query)
{
    char text[64];
    omendb_filter *filter = NULL;
    size_t found = 0, hits = 0;
    sprintf(text, "size < %llu", (unsigned long long)below);
    query.k = BATCH_K;
    if (omendb_filter_compile(asking.db, text, &filter) != OMENDB_OK)
        return -1;
    query.filter = filter;
    const int status = omendb_search_batch(asking.docs, txn, &query, batch_vectors, BATCH_QUERIES,
                                           batch_ids, batch_distances, batch_counts);
    omendb_filter_free(filter);
    if (status != OMENDB_OK)
        return -1;
    for (size_t i = 0; i < BATCH_QUERIES; i++) {
        const int these = batch_true_hits(i, below);
        if (these < 0)
            return -1;
        found += (size_t)these;
        hits += batch_counts[i];
    }
    return hits == 0 ? 1 : (double)found / (double)hits;
}

/* From none that match to all. */
static int batch_agrees(omendb_txn *txn)
{
    static const uint64_t belows[] = {0, 1, 4, 15, 40, 85, 100};
    omendb_query exact = OMENDB_QUERY_INIT, near = OMENDB_QUERY_INIT;
    exact.exact = 1;
    near.ef = 100;
    for (size_t i = 0; i < sizeof belows / sizeof *belows; i++)
        if (batch_recall(txn, belows[i], exact) < 1 || batch_recall(txn, belows[i], near) < 0.95)
            return 0;
    return 1;
}

TEST(each_query_of_a_batch_gives_what_the_model_finds)
{
    omendb_txn *txn = NULL;
    batch_make_queries();
    CHECK_EQ_INT(asking_open("batch_filters", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_fill(), OMENDB_OK);
    CHECK(batch_agrees(NULL));
    CHECK_EQ_INT(omendb_txn_begin(asking.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(asking_change(txn, 5, ASKING_MANY, 23, 2), OMENDB_OK);
    CHECK(batch_agrees(txn));
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(asking.db, NULL, NULL), OMENDB_OK);
    CHECK(batch_agrees(NULL));
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

TEST(what_is_committed_between_two_batches_counts)
{
    batch_make_queries();
    CHECK_EQ_INT(asking_open("batch_commits", 2), OMENDB_OK);
    CHECK_EQ_INT(asking_put_many(0, 2500), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(asking.db, NULL, NULL), OMENDB_OK);
    for (uint64_t round = 1; round <= 4; round++) {
        CHECK(batch_agrees(NULL));
        CHECK_EQ_INT(asking_change(NULL, round, 2500, 7 + round, round), OMENDB_OK);
        for (uint64_t id = round; id < 2500; id += 31) {
            char json[32];
            const int status = (sprintf(json, "{\"size\":%llu}", (unsigned long long)(id % 100)),
                                omendb_update(asking.docs, NULL, id, json));
            CHECK(status == (asking.records[id].live ? OMENDB_OK : OMENDB_NOTFOUND));
            asking.records[id].size = id % 100;
        }
    }
    CHECK(batch_agrees(NULL));
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

static int batch_count(void *context, uint64_t id)
{
    uint64_t *asked = context;
    ++*asked;
    return id % 3 == 0;
}

/* On one thread: that of the caller. */
TEST(a_batch_asks_its_condition_once_of_each_record)
{
    uint64_t asked = 0;
    omendb_query query = OMENDB_QUERY_INIT;
    batch_make_queries();
    CHECK_EQ_INT(asking_open("batch_asks", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_put_many(0, 2000), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(asking.db, NULL, NULL), OMENDB_OK);
    query.match = batch_count;
    query.match_context = &asked;
    query.k = BATCH_K;
    query.exact = 1;
    CHECK_EQ_INT(omendb_search_batch(asking.docs, NULL, &query, batch_vectors, BATCH_QUERIES,
                                     batch_ids, batch_distances, batch_counts),
                 OMENDB_OK);
    CHECK_EQ_INT(asked, 2000);
    for (size_t i = 0; i < BATCH_QUERIES * BATCH_K; i++)
        CHECK(batch_ids[i] % 3 == 0);
    asked = 0;
    query.exact = 0;
    query.ef = 200;
    CHECK_EQ_INT(omendb_search_batch(asking.docs, NULL, &query, batch_vectors, BATCH_QUERIES,
                                     batch_ids, batch_distances, batch_counts),
                 OMENDB_OK);
    CHECK(asked <= 2000);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

TEST_MAIN(each_query_of_a_batch_gives_what_the_model_finds,
          what_is_committed_between_two_batches_counts,
          a_batch_asks_its_condition_once_of_each_record)
