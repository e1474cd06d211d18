/* test_by_example.c: searches by positive and negative examples compare with the vector that
 * omendb.h tells, and leave the examples out. */
#include "asking.h"

#include <math.h>

static struct asking_hit example_sorted[ASKING_MANY];

struct example_set {
    const uint64_t *positive, *negative;
    size_t positives, negatives;
};

static void example_mean(const uint64_t *ids, size_t count, double weight, int normal, double *sum)
{
    for (size_t i = 0; i < count; i++) {
        const float *vector = asking.records[ids[i]].vector;
        double norm = 0.0;
        for (int d = 0; d < ASKING_DIM; d++)
            norm += (double)vector[d] * vector[d];
        for (int d = 0; d < ASKING_DIM; d++)
            sum[d] += weight * vector[d] / (double)count / (normal ? sqrt(norm) : 1.0);
    }
}

static int example_is_one(const struct example_set *set, uint64_t id)
{
    int is = 0;
    for (size_t i = 0; i < set->positives; i++)
        is |= set->positive[i] == id;
    for (size_t i = 0; i < set->negatives; i++)
        is |= set->negative[i] == id;
    return is;
}

static void example_ask(const struct example_set *set, omendb_query *query)
{
    omendb_query_init(query);
    query->exact = 1;
    query->positive_ids = set->positive;
    query->positive_count = set->positives;
    query->negative_ids = set->negative;
    query->negative_count = set->negatives;
}

/* 1: the hits are those of a search for the vector that the model makes, without the examples. */
static int example_agrees(omendb_txn *txn, const struct example_set *set, size_t k)
{
    static uint64_t ids[ASKING_MANY];
    static float distances[ASKING_MANY];
    double sum[ASKING_DIM] = {0};
    float vector[ASKING_DIM];
    omendb_query query;
    size_t count = 0, at = 0;
    example_mean(set->positive, set->positives, set->negatives == 0 ? 1.0 : 2.0, 0, sum);
    example_mean(set->negative, set->negatives, -1.0, 0, sum);
    for (int d = 0; d < ASKING_DIM; d++)
        vector[d] = (float)sum[d];
    const size_t all = asking_sort(vector, 100, example_sorted);
    example_ask(set, &query);
    query.k = k;
    if (omendb_search(asking.docs, txn, &query, ids, distances, &count) != OMENDB_OK) {
        fprintf(stderr, "    %s\n", omendb_errmsg());
        return 0;
    }
    for (size_t i = 0; i < all && at < count; i++) {
        if (example_is_one(set, example_sorted[i].id))
            continue;
        if (fabsf(distances[at] - example_sorted[i].distance) > 0.001f ||
            example_is_one(set, ids[at]))
            return 0;
        at++;
    }
    return at == count && (count == k || k > all - 5);
}

TEST(hits_are_near_what_the_examples_make)
{
    static const uint64_t positive[] = {10, 1901, 2500, 10}, negative[] = {701, 2000};
    const struct example_set sets[] = {{positive, NULL, 1, 0},
                                       {positive, NULL, 4, 0},
                                       {positive, negative, 1, 1},
                                       {positive, negative, 4, 2},
                                       {positive, positive, 3, 1}};
    omendb_txn *txn = NULL;
    CHECK_EQ_INT(asking_open("examples", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_fill(), OMENDB_OK);
    for (size_t i = 0; i < 5; i++) {
        CHECK(example_agrees(NULL, &sets[i], 1));
        CHECK(example_agrees(NULL, &sets[i], 25));
        CHECK(example_agrees(NULL, &sets[i], ASKING_MANY));
    }
    CHECK_EQ_INT(omendb_txn_begin(asking.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(asking_put(txn, 10, 5), OMENDB_OK);
    CHECK_EQ_INT(asking_put(txn, 2000, 5), OMENDB_OK);
    CHECK(example_agrees(txn, &sets[3], 25));
    omendb_txn_rollback(txn);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

static int put_direction(omendb_collection *collection, uint64_t id, double degrees)
{
    const double angle = degrees * 3.14159265358979323846 / 180.0;
    const float vector[2] = {(float)cos(angle), (float)sin(angle)};
    omendb_record record = OMENDB_RECORD_INIT;
    record.id = id;
    record.vector = vector;
    return omendb_put(collection, NULL, &record, NULL);
}

/* Under cosine the length of an example does not count; without negative ones, one example is as
 * the query by its id. */
TEST(under_cosine_examples_count_by_their_direction)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *c = NULL;
    static const uint64_t positive[] = {1, 2}, opposite[] = {1, 3};
    const float vectors[4][2] = {{1, 0}, {0, 1000}, {-5, 0}, {3, 3}};
    omendb_query query = OMENDB_QUERY_INIT;
    uint64_t ids[4];
    size_t count = 0;
    CHECK_EQ_INT(asking_open("cosine", 0), OMENDB_OK);
    schema.dim = 2;
    schema.metric = OMENDB_COSINE;
    CHECK_EQ_INT(omendb_collection_create(asking.db, "c", &schema, &c), OMENDB_OK);
    for (uint64_t i = 0; i < 4; i++) {
        omendb_record record = OMENDB_RECORD_INIT;
        record.id = i + 1;
        record.vector = vectors[i];
        CHECK_EQ_INT(omendb_add(c, NULL, &record, NULL), OMENDB_OK);
    }
    float distances[4];
    query.positive_ids = positive;
    query.positive_count = 2;
    CHECK_EQ_INT(omendb_search(c, NULL, &query, ids, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 2);
    CHECK_EQ_INT(ids[0], 4);
    CHECK(fabsf(distances[0]) < 1e-6f); /* exactly between them */
    query.positive_ids = opposite;
    CHECK_EQ_INT(omendb_search(c, NULL, &query, ids, distances, &count), OMENDB_INVALID);
    /* 0 and 120 degrees, unlike 60: what is left is rounding. */
    static const uint64_t ends[] = {1, 5}, middle[] = {6};
    CHECK_EQ_INT(put_direction(c, 5, 120), OMENDB_OK);
    CHECK_EQ_INT(put_direction(c, 6, 60), OMENDB_OK);
    query.positive_ids = ends;
    query.negative_ids = middle;
    query.negative_count = 1;
    CHECK_EQ_INT(omendb_search(c, NULL, &query, ids, distances, &count), OMENDB_INVALID);
    omendb_collection_close(c);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

TEST(of_bits_the_most_have_their_way)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *c = NULL;
    static const uint64_t positive[] = {0, 1, 2}, negative[] = {3};
    static const uint8_t vectors[][1] = {{0xB}, {0x9}, {0xC}, {0x2}, {0x9}, {0xD}, {0x8}};
    omendb_query query = OMENDB_QUERY_INIT;
    uint64_t ids[8];
    float distances[8];
    size_t count = 0;
    CHECK_EQ_INT(asking_open("bits", 0), OMENDB_OK);
    schema.dim = 4;
    schema.metric = OMENDB_HAMMING;
    schema.scalar = OMENDB_B1;
    CHECK_EQ_INT(omendb_collection_create(asking.db, "c", &schema, &c), OMENDB_OK);
    for (uint64_t i = 0; i < 7; i++) {
        omendb_record record = OMENDB_RECORD_INIT;
        record.id = i;
        record.vector = vectors[i];
        record.vector_type = OMENDB_B1;
        CHECK_EQ_INT(omendb_add(c, NULL, &record, NULL), OMENDB_OK);
    }
    query.positive_ids = positive;
    query.positive_count = 3; /* of 1011, 1001, 1100 two have the bits of 1001 */
    CHECK_EQ_INT(omendb_search(c, NULL, &query, ids, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 4);
    CHECK_EQ_INT(ids[0], 4);
    CHECK(distances[0] == 0.0f);
    query.negative_ids = negative;
    query.negative_count = 1; /* 2p is 2, 2/3, 2/3, 4/3; without 0010 above a half: 1101 */
    CHECK_EQ_INT(omendb_search(c, NULL, &query, ids, distances, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 3);
    CHECK_EQ_INT(ids[0], 5);
    CHECK(distances[0] == 0.0f);
    omendb_collection_close(c);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

/* An exact half is no majority, whatever the shares are rounded to. */
TEST(a_half_of_the_examples_is_not_the_most)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *c = NULL;
    uint64_t positive[64], hit;
    omendb_query query = OMENDB_QUERY_INIT;
    size_t count = 0;
    CHECK_EQ_INT(asking_open("halves", 0), OMENDB_OK);
    schema.dim = 4;
    schema.metric = OMENDB_HAMMING;
    schema.scalar = OMENDB_B1;
    CHECK_EQ_INT(omendb_collection_create(asking.db, "c", &schema, &c), OMENDB_OK);
    for (uint64_t i = 0; i < 66; i++) {
        const uint8_t bits = i < 64 ? (uint8_t)(i % 2) : (uint8_t)(i - 64);
        omendb_record record = OMENDB_RECORD_INIT;
        record.id = i;
        record.vector = &bits;
        record.vector_type = OMENDB_B1;
        CHECK_EQ_INT(omendb_add(c, NULL, &record, NULL), OMENDB_OK);
        if (i < 64)
            positive[i] = i;
    }
    query.positive_ids = positive;
    query.k = 1;
    for (query.positive_count = 2; query.positive_count <= 64; query.positive_count += 2) {
        omendb_filter *rest = NULL;
        CHECK_EQ_INT(omendb_filter_compile(asking.db, "_id >= 64", &rest), OMENDB_OK);
        query.filter = rest;
        CHECK_EQ_INT(omendb_search(c, NULL, &query, &hit, NULL, &count), OMENDB_OK);
        CHECK(count == 1 && hit == 64);
        omendb_filter_free(rest);
    }
    omendb_collection_close(c);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

TEST(examples_that_make_no_sense_are_refused)
{
    static uint64_t many[OMENDB_EXAMPLES_MAX + 1];
    static const uint64_t known[] = {1, 2}, missing[] = {1, 77};
    omendb_query query = OMENDB_QUERY_INIT;
    float vector[ASKING_DIM] = {1};
    uint64_t ids[10];
    size_t count = 0;
    CHECK_EQ_INT(asking_open("refused", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_put_many(0, 20), OMENDB_OK);
    query.negative_ids = known;
    query.negative_count = 1;
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_INVALID);
    query.positive_ids = missing;
    query.positive_count = 2;
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_NOTFOUND);
    CHECK(strstr(omendb_errmsg(), "77") != NULL);
    query.positive_count = 1;
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_OK);
    query.id = 3;
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_INVALID);
    query.id = OMENDB_ID_AUTO;
    query.vector = vector;
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_search_batch(asking.docs, NULL, &query, vector, 1, ids, NULL, NULL),
                 OMENDB_INVALID);
    query.vector = NULL;
    query.positive_ids = many;
    query.positive_count = OMENDB_EXAMPLES_MAX + 1;
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_TOOBIG);
    query.positive_count = OMENDB_EXAMPLES_MAX;
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_OK);
    query.positive_ids = NULL;
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_MISUSE);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

TEST_MAIN(hits_are_near_what_the_examples_make, under_cosine_examples_count_by_their_direction,
          of_bits_the_most_have_their_way, a_half_of_the_examples_is_not_the_most,
          examples_that_make_no_sense_are_refused)
