/* test_filtered_search.c: a search under a condition gives k hits whenever k records match, those
 * of a brute force when it is exact, and about those of one without a condition when it is not:
 * whatever share matches, wherever it lies, however it is stored. Counting and deleting by a
 * condition do what they say. */
#include "internals.h"

#include "support.h"
#include "test.h"

#define DIM      12
#define ROWS     6000
#define CLUSTERS 24
#define QUERIES  300
#define K        10
#define OWN      (2 * (uint64_t)ROWS) /* ids of a transaction's own records begin here */

static omendb *db;
static omendb_collection *rows;
static float vectors[ROWS * DIM];
static int cluster_of[ROWS], is_deleted[ROWS];
static uint64_t found[K], wanted_ids[K];
static float distances[K], wanted_distances[K];

/* ------------------------------------------------------------------ records and conditions */

/* Integers around one of the clusters' centres. */
static void point(uint64_t salt, int cluster, float *vector)
{
    struct support_random random = {support_mix(salt)};
    for (int i = 0; i < DIM; i++)
        vector[i] = (float)((int)(support_mix((uint64_t)(cluster * DIM + i) + 99) % 200) +
                            (int)support_below(&random, 81) - 40);
}

enum kind { RANDOM, CLUSTER, FEW, NONE };

struct condition {
    enum kind kind;
    double share;
    int cluster;
    uint64_t below;          /* FEW: ids that match */
    uint8_t asked[3 * ROWS]; /* how often, of each id */
    uint64_t asks;
};

static int matches(const struct condition *condition, uint64_t id)
{
    switch (condition->kind) {
    case RANDOM:
        return (double)(support_mix(id) >> 11) / 9007199254740992.0 < condition->share;
    case CLUSTER:
        return id < ROWS && cluster_of[id] == condition->cluster;
    case FEW:
        return id < condition->below;
    default:
        return 0;
    }
}

static int match(void *context, uint64_t id)
{
    struct condition *condition = context;
    condition->asked[id]++;
    condition->asks++;
    return matches(condition, id) ? 7 : 0;
}

/* For several threads: counts nothing. */
static int match_quietly(void *context, uint64_t id)
{
    return matches(context, id);
}

static struct condition condition_of(enum kind kind, double share, int cluster, uint64_t below)
{
    struct condition condition;
    memset(&condition, 0, sizeof condition);
    condition.kind = kind;
    condition.share = share;
    condition.cluster = cluster;
    condition.below = below;
    return condition;
}

static int add(uint64_t first, uint64_t last)
{
    static uint64_t ids[ROWS];
    for (uint64_t id = first; id < last; id++)
        ids[id - first] = id;
    return omendb_put_batch(rows, NULL, last - first, ids, vectors + first * DIM, OMENDB_F32, NULL);
}

/* All in one segment, or in two and a memtable that has them in its graph, but for the last. */
static void open_rows(int parts)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    int more = 1;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    schema.dim = DIM;
    for (uint64_t id = 0; id < ROWS; id++) {
        is_deleted[id] = 0;
        cluster_of[id] = (int)(support_mix(id) % CLUSTERS);
        point(id, cluster_of[id], vectors + id * DIM);
    }
    CHECK_EQ_INT(omendb_open(":memory:", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "rows", &schema, &rows), OMENDB_OK);
    if (parts == 1) {
        CHECK_EQ_INT(add(0, ROWS), OMENDB_OK);
        CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
        return;
    }
    CHECK_EQ_INT(add(0, 3000), OMENDB_OK);
    CHECK_EQ_INT(support_work(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK_EQ_INT(add(3000, 5000), OMENDB_OK);
    CHECK_EQ_INT(omendb_work(db, 10000000, &more), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK_EQ_INT(add(5000, ROWS - 200), OMENDB_OK);
    CHECK_EQ_INT(support_work(db), OMENDB_OK);
    CHECK_EQ_INT(add(ROWS - 200, ROWS), OMENDB_OK);
}

static void close_all(void)
{
    omendb_collection_close(rows);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

static void delete_some(void)
{
    static uint64_t ids[ROWS];
    size_t count = 0;
    for (uint64_t id = 0; id < ROWS; id++) {
        is_deleted[id] = support_mix(id + 5) % 10 < 3;
        if (is_deleted[id])
            ids[count++] = id;
    }
    CHECK_EQ_INT(omendb_delete_batch(rows, NULL, count, ids, NULL), OMENDB_OK);
}

static void query_vector(uint64_t salt, float *vector)
{
    point(salt + 1000000, (int)(salt % CLUSTERS), vector);
}

/* The K nearest of those that match, equal ones by id; returns how many there are, at most K. */
static size_t brute_force(const struct condition *condition, const float *vector)
{
    size_t count = 0;
    for (uint64_t id = 0; id < ROWS; id++) {
        float distance;
        size_t at;
        if (is_deleted[id] || (condition != NULL && !matches(condition, id)))
            continue;
        distance = support_l2(vector, vectors + id * DIM, DIM);
        for (at = count; at > 0 && wanted_distances[at - 1] > distance; at--)
            ;
        if (at == K)
            continue;
        count += count < K;
        for (size_t i = count - 1; i > at; i--) {
            wanted_distances[i] = wanted_distances[i - 1];
            wanted_ids[i] = wanted_ids[i - 1];
        }
        wanted_distances[at] = distance;
        wanted_ids[at] = id;
    }
    return count;
}

static omendb_query query_of(const float *vector, struct condition *condition)
{
    omendb_query query = OMENDB_QUERY_INIT;
    query.vector = vector;
    query.k = K;
    query.match = condition == NULL ? NULL : match;
    query.match_context = condition;
    return query;
}

/* ------------------------------------------------------------------ what is promised */

/* Hits are of records that match, each once, nearest first. */
static void check_hits(const struct condition *condition, const float *vector, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        CHECK(found[i] < ROWS && !is_deleted[found[i]] && matches(condition, found[i]));
        CHECK(distances[i] == support_l2(vector, vectors + found[i] * DIM, DIM));
        CHECK(i == 0 || distances[i - 1] < distances[i] ||
              (distances[i - 1] == distances[i] && found[i - 1] < found[i]));
    }
}

static void check_all_efforts(struct condition *condition)
{
    float vector[DIM];
    for (uint64_t salt = 0; salt < 40; salt++) {
        size_t count = 0, exist;
        query_vector(salt, vector);
        omendb_query query = query_of(vector, condition);
        query.ef = salt % 4 == 0 ? 10 : salt % 4 == 1 ? 100 : 0;
        query.stretch = salt % 4 == 2 ? 1.1f : 0.0f;
        query.recall = salt % 4 == 3 ? 0.9f : 0.0f;
        exist = brute_force(condition, vector);
        CHECK_EQ_INT(omendb_search(rows, NULL, &query, found, distances, &count), OMENDB_OK);
        CHECK_EQ_INT(count, exist);
        check_hits(condition, vector, count);
        query.ef = 0;
        query.stretch = query.recall = 0.0f;
        query.exact = 1;
        CHECK_EQ_INT(omendb_search(rows, NULL, &query, found, distances, &count), OMENDB_OK);
        CHECK_EQ_INT(count, exist);
        CHECK(memcmp(found, wanted_ids, count * sizeof *found) == 0);
        CHECK(memcmp(distances, wanted_distances, count * sizeof *distances) == 0);
    }
}

static void check_all_conditions(void)
{
    const double shares[] = {1.0, 0.3, 0.03, 0.004};
    struct condition condition;
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        condition = condition_of(RANDOM, shares[i], 0, 0);
        check_all_efforts(&condition);
    }
    for (int cluster = 0; cluster < CLUSTERS; cluster += 9) {
        condition = condition_of(CLUSTER, 0, cluster, 0);
        check_all_efforts(&condition);
    }
    condition = condition_of(FEW, 0, 0, K);
    check_all_efforts(&condition);
    condition = condition_of(FEW, 0, 0, 3);
    check_all_efforts(&condition);
    condition = condition_of(NONE, 0, 0, 0);
    check_all_efforts(&condition);
}

TEST(k_hits_come_whenever_k_match_and_exact_ones_are_exact)
{
    open_rows(1);
    check_all_conditions();
    close_all();
}

TEST(the_same_holds_over_segments_and_memtables_with_deleted_rows)
{
    open_rows(3);
    delete_some();
    check_all_conditions();
    close_all();
}

/* Centres of clusters, nearest first: the one at `place` of the query's. */
static int cluster_at(const float *vector, int place)
{
    float from[CLUSTERS];
    int at = 0;
    for (int c = 0; c < CLUSTERS; c++) {
        from[c] = 0.0f;
        for (int i = 0; i < DIM; i++) {
            float centre = (float)(support_mix((uint64_t)(c * DIM + i) + 99) % 200);
            from[c] += (vector[i] - centre) * (vector[i] - centre);
        }
    }
    for (int c = 0; c < CLUSTERS; c++) {
        int nearer = 0;
        for (int other = 0; other < CLUSTERS; other++)
            nearer += from[other] < from[c] || (from[other] == from[c] && other < c);
        at = nearer == place ? c : at;
    }
    return at;
}

/* place -1: a random share; else the cluster at that place; share 0: no condition. */
static double recall_of(double share, int place, uint32_t ef, float stretch)
{
    static struct condition condition;
    size_t hits = 0, of = 0;
    float vector[DIM];
    for (uint64_t salt = 0; salt < QUERIES; salt++) {
        size_t count = 0, exist;
        query_vector(salt, vector);
        condition.kind = place < 0 ? RANDOM : CLUSTER;
        condition.share = share;
        condition.cluster = place < 0 ? 0 : cluster_at(vector, place);
        omendb_query query = query_of(vector, share > 0.0 ? &condition : NULL);
        query.ef = ef;
        query.stretch = stretch;
        exist = brute_force(share > 0.0 ? &condition : NULL, vector);
        support_must(omendb_search(rows, NULL, &query, found, distances, &count));
        of += exist;
        for (size_t i = 0; i < exist; i++)
            hits += i < count && distances[i] <= wanted_distances[exist - 1];
    }
    return (double)hits / (double)of;
}

static void check_recall(uint32_t ef, float stretch)
{
    const double least = recall_of(0.0, -1, ef, stretch) - 0.005;
    const double shares[] = {1.0, 0.5, 0.1, 0.02, 0.002};
    const int places[] = {0, 1, CLUSTERS - 1};
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++)
        CHECK(recall_of(shares[i], -1, ef, stretch) >= least);
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        CHECK(recall_of(1.0, places[i], ef, stretch) >= least);
}

TEST(recall_is_not_below_that_without_a_condition)
{
    open_rows(1);
    check_recall(12, 0.0f);
    check_recall(40, 0.0f);
    check_recall(0, 1.05f);
    delete_some();
    check_recall(12, 0.0f);
    close_all();
}

/* ------------------------------------------------------------------ how often, and what is told */

/* The share of the visible records that match. */
static float share_of(const struct condition *condition)
{
    size_t visible = 0, matching = 0;
    for (uint64_t id = 0; id < ROWS; id++) {
        visible += !is_deleted[id];
        matching += !is_deleted[id] && matches(condition, id);
    }
    return (float)((double)matching / (double)visible);
}

static void check_asked_once(uint32_t exact, enum kind kind, double share, int cluster,
                             uint32_t path)
{
    static struct condition condition;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    float vector[DIM];
    size_t count = 0;
    condition = condition_of(kind, share, cluster, 0);
    query_vector(0, vector);
    omendb_query query = query_of(vector, &condition);
    query.exact = exact;
    query.ef = 30;
    query.explain = &explain;
    CHECK_EQ_INT(omendb_search(rows, NULL, &query, found, distances, &count), OMENDB_OK);
    for (uint64_t id = 0; id < ROWS; id++)
        CHECK(condition.asked[id] <= !is_deleted[id]);
    CHECK_EQ_INT(explain.matches_tested, condition.asks);
    CHECK_EQ_INT(explain.path, path);
    if (path == OMENDB_PATH_WALK) {
        CHECK(condition.asks < ROWS / 4);
        CHECK(explain.selectivity > 0.8f * (float)share);
        CHECK(explain.selectivity < 1.2f * (float)share);
    } else {
        CHECK(explain.selectivity > 0.9999f * share_of(&condition));
        CHECK(explain.selectivity < 1.0001f * share_of(&condition));
        CHECK(explain.distances < 2 * (ROWS / 8 + 1 + (size_t)(share_of(&condition) * ROWS)));
    }
}

TEST(a_condition_is_asked_once_of_a_row_and_explain_tells_what_was_done)
{
    float vector[DIM];
    query_vector(0, vector);
    open_rows(1);
    check_asked_once(0, RANDOM, 1.0, 0, OMENDB_PATH_WALK);
    check_asked_once(0, RANDOM, 0.5, 0, OMENDB_PATH_WALK);
    check_asked_once(0, RANDOM, 0.004, 0, OMENDB_PATH_WALK_THEN_SCAN);
    check_asked_once(0, CLUSTER, 0, cluster_at(vector, CLUSTERS - 1), OMENDB_PATH_WALK_THEN_SCAN);
    check_asked_once(1, RANDOM, 0.5, 0, OMENDB_PATH_SCAN);
    check_asked_once(1, RANDOM, 0.004, 0, OMENDB_PATH_SCAN);
    delete_some();
    check_asked_once(0, RANDOM, 0.004, 0, OMENDB_PATH_WALK_THEN_SCAN);
    check_asked_once(1, RANDOM, 0.5, 0, OMENDB_PATH_SCAN);
    close_all();
}

/* So many rows at one distance that a scan looks at them a second time. */
TEST(equal_distances_do_not_ask_twice)
{
    static struct condition condition;
    float vector[DIM];
    size_t count = 0;
    open_rows(1);
    memcpy(vector, vectors, sizeof vector);
    for (uint64_t id = 1000; id < 3000; id++) {
        memcpy(vectors + id * DIM, vector, sizeof vector);
        cluster_of[id] = cluster_of[0];
    }
    CHECK_EQ_INT(add(1000, 3000), OMENDB_OK);
    condition = condition_of(CLUSTER, 0, cluster_of[0], 0);
    for (uint64_t id = 1000; id < 2000; id++)
        cluster_of[id] = -1;
    omendb_query query = query_of(vector, &condition);
    query.exact = 1;
    CHECK_EQ_INT(omendb_search(rows, NULL, &query, found, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(count, brute_force(&condition, vector));
    CHECK(memcmp(found, wanted_ids, sizeof found) == 0);
    for (uint64_t id = 0; id < ROWS; id++)
        CHECK_EQ_INT(condition.asked[id], 1);
    close_all();
}

TEST(without_a_condition_explain_tells_paths_too)
{
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    float vector[DIM];
    size_t count = 0;
    open_rows(1);
    query_vector(0, vector);
    omendb_query query = query_of(vector, NULL);
    query.explain = &explain;
    CHECK_EQ_INT(omendb_search(rows, NULL, &query, found, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(explain.path, OMENDB_PATH_WALK);
    CHECK_EQ_INT(explain.matches_tested, 0);
    CHECK(explain.selectivity == 1.0f);
    query.exact = 1;
    CHECK_EQ_INT(omendb_search(rows, NULL, &query, found, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(explain.path, OMENDB_PATH_SCAN);
    close_all();
}

/* ------------------------------------------------------------------ beside other terms */

TEST(a_radius_bounds_the_matches)
{
    struct condition condition = condition_of(RANDOM, 0.2, 0, 0);
    float vector[DIM];
    open_rows(3);
    for (uint64_t salt = 0; salt < 30; salt++) {
        size_t count = 0;
        query_vector(salt, vector);
        CHECK_EQ_INT(brute_force(&condition, vector), K);
        omendb_query query = query_of(vector, &condition);
        query.exact = salt % 2 == 0;
        query.ef = query.exact ? 0 : 300;
        query.use_radius = 1;
        query.radius = (wanted_distances[3] + wanted_distances[4]) / 2.0f;
        CHECK_EQ_INT(omendb_search(rows, NULL, &query, found, distances, &count), OMENDB_OK);
        CHECK_EQ_INT(count, wanted_distances[3] < wanted_distances[4] ? 4 : count);
        check_hits(&condition, vector, count);
    }
    close_all();
}

TEST(a_batch_gives_what_single_searches_give)
{
    static float queries[64 * DIM];
    static uint64_t ids[64 * K];
    static size_t counts[64];
    struct condition condition = condition_of(RANDOM, 0.05, 0, 0);
    size_t count = 0;
    open_rows(3);
    for (uint64_t salt = 0; salt < 64; salt++)
        query_vector(salt, queries + salt * DIM);
    omendb_query query = query_of(NULL, &condition);
    query.match = match_quietly;
    CHECK_EQ_INT(omendb_search_batch(rows, NULL, &query, queries, 64, ids, NULL, counts),
                 OMENDB_OK);
    for (size_t i = 0; i < 64; i++) {
        query.vector = queries + i * DIM;
        CHECK_EQ_INT(omendb_search(rows, NULL, &query, found, distances, &count), OMENDB_OK);
        CHECK_EQ_INT(counts[i], count);
        CHECK(memcmp(ids + i * K, found, count * sizeof *found) == 0);
    }
    close_all();
}

/* Far from all others, near each other. */
static void own_vector(uint64_t id, float *vector)
{
    for (int i = 0; i < DIM; i++)
        vector[i] = 1000.0f;
    vector[0] += (float)(id - OWN);
}

TEST(a_transactions_own_records_are_asked_too)
{
    struct condition condition = condition_of(RANDOM, 0.5, 0, 0);
    omendb_txn *txn = NULL;
    float vector[DIM];
    size_t count = 0;
    uint64_t counted = 0, expected = 0;
    open_rows(3);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (uint64_t id = OWN; id < OWN + 60; id++) {
        omendb_record record = OMENDB_RECORD_INIT;
        own_vector(id, vector);
        record.id = id;
        record.vector = vector;
        CHECK_EQ_INT(omendb_put(rows, txn, &record, NULL), OMENDB_OK);
    }
    for (uint64_t id = 0; id < 200; id++)
        CHECK_EQ_INT(omendb_delete(rows, txn, id), OMENDB_OK);
    own_vector(OWN, vector);
    omendb_query query = query_of(vector, &condition);
    CHECK_EQ_INT(omendb_search(rows, txn, &query, found, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(count, K);
    for (uint64_t id = OWN, i = 0; i < K; id++) {
        if (matches(&condition, id))
            CHECK_EQ_INT(found[i++], id);
    }
    for (uint64_t id = 0; id < OWN + 60; id++)
        CHECK(condition.asked[id] <= 1);
    for (uint64_t id = 200; id < OWN + 60; id++)
        expected += (id < ROWS || id >= OWN) && matches(&condition, id);
    CHECK_EQ_INT(omendb_count_matching(rows, txn, NULL, match, &condition, &counted), OMENDB_OK);
    CHECK_EQ_INT(counted, expected);
    omendb_txn_rollback(txn);
    close_all();
}

/* ------------------------------------------------------------------ counting and deleting */

static uint64_t count_visible(const struct condition *condition)
{
    uint64_t count = 0;
    for (uint64_t id = 0; id < ROWS; id++)
        count += !is_deleted[id] && matches(condition, id);
    return count;
}

TEST(counting_asks_once_of_each_record)
{
    struct condition condition = condition_of(RANDOM, 0.3, 0, 0);
    uint64_t counted = 0;
    open_rows(3);
    delete_some();
    CHECK_EQ_INT(omendb_count_matching(rows, NULL, NULL, match, &condition, &counted), OMENDB_OK);
    CHECK_EQ_INT(counted, count_visible(&condition));
    for (uint64_t id = 0; id < ROWS; id++)
        CHECK_EQ_INT(condition.asked[id], !is_deleted[id]);
    CHECK_EQ_INT(omendb_count_matching(rows, NULL, NULL, NULL, NULL, &counted), OMENDB_OK);
    CHECK_EQ_INT(counted, condition.asks);
    close_all();
}

TEST(deleting_takes_all_that_match_in_one_commit)
{
    struct condition condition = condition_of(RANDOM, 0.3, 0, 0);
    omendb_stats before = OMENDB_STATS_INIT, after = OMENDB_STATS_INIT;
    uint64_t deleted = 0, left = 0, expected;
    open_rows(3);
    expected = count_visible(&condition);
    CHECK_EQ_INT(omendb_get_stats(db, &before), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete_matching(rows, NULL, NULL, match, &condition, &deleted), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(db, &after), OMENDB_OK);
    CHECK_EQ_INT(after.commits, before.commits + 1);
    CHECK_EQ_INT(deleted, expected);
    CHECK_EQ_INT(omendb_count(rows, NULL, &left), OMENDB_OK);
    CHECK_EQ_INT(left, ROWS - expected);
    CHECK_EQ_INT(omendb_delete_matching(rows, NULL, NULL, match, &condition, &deleted), OMENDB_OK);
    CHECK_EQ_INT(deleted, 0);
    close_all();
}

/* As after a filter with a typo, whose code nobody looked at. */
TEST(deleting_without_a_condition_is_refused)
{
    omendb_filter *filter = NULL;
    omendb_txn *txn = NULL;
    uint64_t deleted = 1, left = 0;
    open_rows(1);
    CHECK_EQ_INT(omendb_filter_compile(db, "archived = ture", &filter), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_delete_matching(rows, NULL, filter, NULL, NULL, &deleted), OMENDB_INVALID);
    CHECK(strstr(omendb_errmsg(), "{} in the JSON form") != NULL);
    CHECK_EQ_INT(deleted, 0);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete_matching(rows, txn, NULL, NULL, NULL, NULL), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_count(rows, NULL, &left), OMENDB_OK);
    CHECK_EQ_INT(left, ROWS);
    close_all();
}

TEST(a_filter_that_matches_all_deletes_all)
{
    static const char *const texts[] = {"TRUE", "{}"};
    for (size_t i = 0; i < 2; i++) {
        omendb_filter *filter = NULL;
        uint64_t deleted = 0, left = 1;
        open_rows(1);
        CHECK_EQ_INT(omendb_filter_compile(db, texts[i], &filter), OMENDB_OK);
        CHECK_EQ_INT(omendb_delete_matching(rows, NULL, filter, NULL, NULL, &deleted), OMENDB_OK);
        omendb_filter_free(filter);
        CHECK_EQ_INT(deleted, ROWS);
        CHECK_EQ_INT(omendb_count(rows, NULL, &left), OMENDB_OK);
        CHECK_EQ_INT(left, 0);
        close_all();
    }
}

TEST(a_transaction_deletes_what_matches_as_it_sees_it)
{
    struct condition condition = condition_of(FEW, 0, 0, 100);
    omendb_txn *txn = NULL;
    uint64_t deleted = 0, left = 0;
    open_rows(3);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(rows, txn, 5), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete_matching(rows, txn, NULL, match, &condition, &deleted), OMENDB_OK);
    CHECK_EQ_INT(deleted, 99);
    CHECK_EQ_INT(omendb_count(rows, NULL, &left), OMENDB_OK);
    CHECK_EQ_INT(left, ROWS);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_count(rows, NULL, &left), OMENDB_OK);
    CHECK_EQ_INT(left, ROWS - 100);
    close_all();
}

/* Changes record 7 while records are chosen, as another thread might: the library holds no lock
 * while it asks, which a program must not rely on. */
static int meddle(void *context, uint64_t id)
{
    int *times = context;
    if (id == 9 && (*times)-- > 0)
        support_must(add(7, 8));
    return id < 20;
}

TEST(records_that_change_meanwhile_are_chosen_anew)
{
    int times = 3;
    uint64_t deleted = 0, left = 0;
    open_rows(1);
    CHECK_EQ_INT(omendb_delete_matching(rows, NULL, NULL, meddle, &times, &deleted), OMENDB_OK);
    CHECK_EQ_INT(deleted, 20);
    CHECK_EQ_INT(omendb_count(rows, NULL, &left), OMENDB_OK);
    CHECK_EQ_INT(left, ROWS - 20);
    CHECK_EQ_INT(add(0, 20), OMENDB_OK);
    times = 1000;
    CHECK_EQ_INT(omendb_delete_matching(rows, NULL, NULL, meddle, &times, &deleted),
                 OMENDB_CONFLICT);
    CHECK_EQ_INT(deleted, 0);
    CHECK_EQ_INT(omendb_count(rows, NULL, &left), OMENDB_OK);
    CHECK_EQ_INT(left, ROWS);
    close_all();
}

TEST(wrong_calls_are_refused)
{
    struct condition condition = condition_of(RANDOM, 0.5, 0, 0);
    float vector[DIM] = {1.0f};
    size_t count = 1;
    uint64_t counted = 1;
    open_rows(1);
    omendb_query query = query_of(vector, &condition);
    query.match = NULL;
    CHECK_EQ_INT(omendb_search(rows, NULL, &query, found, distances, &count), OMENDB_INVALID);
    CHECK_EQ_INT(count, 0);
    CHECK_EQ_INT(omendb_count_matching(rows, NULL, NULL, match, &condition, NULL), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_count_matching(NULL, NULL, NULL, match, &condition, &counted),
                 OMENDB_MISUSE);
    CHECK_EQ_INT(counted, 0);
    CHECK_EQ_INT(omendb_delete_matching(NULL, NULL, NULL, match, &condition, &counted),
                 OMENDB_MISUSE);
    close_all();
}

TEST_MAIN(k_hits_come_whenever_k_match_and_exact_ones_are_exact,
          the_same_holds_over_segments_and_memtables_with_deleted_rows,
          recall_is_not_below_that_without_a_condition,
          a_condition_is_asked_once_of_a_row_and_explain_tells_what_was_done,
          equal_distances_do_not_ask_twice, without_a_condition_explain_tells_paths_too,
          a_radius_bounds_the_matches, a_batch_gives_what_single_searches_give,
          a_transactions_own_records_are_asked_too, counting_asks_once_of_each_record,
          deleting_takes_all_that_match_in_one_commit, deleting_without_a_condition_is_refused,
          a_filter_that_matches_all_deletes_all, a_transaction_deletes_what_matches_as_it_sees_it,
          records_that_change_meanwhile_are_chosen_anew, wrong_calls_are_refused)
