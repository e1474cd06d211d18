/* test_many_queries.c: many queries in one call, each of its own kind, give what each gives alone,
 * with threads and without. */
#include "asking.h"

#define MANY_QUERIES 60
#define MANY_K       40

static omendb_query many_queries[MANY_QUERIES];
static omendb_explain many_explains[MANY_QUERIES];
static float many_vectors[MANY_QUERIES][ASKING_DIM];
static const uint64_t many_positive[] = {10, 20, 1900}, many_negative[] = {2500};

static int many_odd(void *context, uint64_t id)
{
    return id % 2 == *(const uint64_t *)context;
}

/* Of every kind, one after the other; exact: all of them, as work in the background may change what
 * others find. */
static void many_make(const omendb_filter *filter, int exact)
{
    static uint64_t parity[2] = {0, 1};
    for (size_t i = 0; i < MANY_QUERIES; i++) {
        omendb_query *query = &many_queries[i];
        omendb_query_init(query);
        support_vector(i + 1000, ASKING_DIM, many_vectors[i]);
        query->k = 1 + i * 13 % MANY_K;
        query->exact = exact || i % 3 != 0;
        query->ef = i % 3 == 0 ? 100 : 0;
        if (i % 4 == 0)
            query->id = i;
        else if (i % 4 == 1)
            query->key = "key 7";
        else if (i % 4 == 2)
            query->vector = many_vectors[i];
        if (i % 4 == 3) {
            query->positive_ids = many_positive;
            query->positive_count = 3;
            query->negative_ids = many_negative;
            query->negative_count = 1;
        }
        query->filter = i % 5 == 0 ? filter : NULL;
        query->match = i % 7 == 0 ? many_odd : NULL;
        query->match_context = i % 7 == 0 ? &parity[i % 2] : NULL;
        query->group_by = i % 6 == 0 ? "doc" : NULL;
        query->use_radius = i % 11 == 0;
        query->radius = i % 11 == 0 ? 60.0f : 0.0f;
        query->timeout_us = i % 2 == 0 ? 600000000 : 0;
        many_explains[i] = (omendb_explain)OMENDB_EXPLAIN_INIT;
        query->explain = i % 2 == 0 ? &many_explains[i] : NULL;
    }
}

static size_t many_largest_k(void)
{
    size_t largest = 0;
    for (size_t i = 0; i < MANY_QUERIES; i++)
        largest = many_queries[i].k > largest ? many_queries[i].k : largest;
    return largest;
}

static int many_agree(omendb_txn *txn)
{
    static uint64_t ids[MANY_QUERIES * MANY_K], alone[MANY_K];
    static float distances[MANY_QUERIES * MANY_K], alone_distances[MANY_K];
    static size_t counts[MANY_QUERIES];
    const size_t places = many_largest_k();
    if (omendb_search_many(asking.docs, txn, many_queries, MANY_QUERIES, ids, distances, counts) !=
        OMENDB_OK) {
        fprintf(stderr, "    %s\n", omendb_errmsg());
        return 0;
    }
    for (size_t i = 0; i < MANY_QUERIES; i++) {
        size_t count = 0;
        const uint64_t *row = ids + i * places;
        if ((many_queries[i].explain != NULL) != (many_explains[i].segments != 0))
            return 0;
        if (omendb_search(asking.docs, txn, &many_queries[i], alone, alone_distances, &count) !=
                OMENDB_OK ||
            counts[i] != count || memcmp(row, alone, count * sizeof *alone) != 0 ||
            memcmp(distances + i * places, alone_distances, count * sizeof *distances) != 0)
            return 0;
        for (size_t j = count; j < places; j++)
            if (row[j] != OMENDB_ID_AUTO || !(distances[i * places + j] > 3e38f))
                return 0;
    }
    return 1;
}

TEST(each_of_many_queries_gives_what_it_gives_alone)
{
    for (int32_t threads = 0; threads < 3; threads += 2) {
        omendb_filter *filter = NULL;
        omendb_txn *txn = NULL;
        CHECK_EQ_INT(asking_open("many", threads), OMENDB_OK);
        CHECK_EQ_INT(asking_fill(), OMENDB_OK);
        CHECK_EQ_INT(omendb_optimize(asking.db, NULL, NULL), OMENDB_OK);
        for (uint64_t i = 0; i < 4; i++)
            CHECK_EQ_INT(asking_put(NULL, many_positive[i % 3], 0), OMENDB_OK);
        for (uint64_t id = 0; id < MANY_QUERIES; id++)
            CHECK_EQ_INT(asking_put(NULL, id, 0), OMENDB_OK);
        CHECK_EQ_INT(asking_put(NULL, many_negative[0], 0), OMENDB_OK);
        CHECK_EQ_INT(omendb_filter_compile(asking.db, "size < 30", &filter), OMENDB_OK);
        many_make(filter, threads != 0);
        CHECK(many_agree(NULL));
        CHECK_EQ_INT(omendb_txn_begin(asking.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
        CHECK_EQ_INT(asking_change(txn, 300, ASKING_MANY, 29, 2), OMENDB_OK);
        CHECK_EQ_INT(asking_put(txn, many_negative[0], 0), OMENDB_OK);
        CHECK_EQ_INT(asking_put(txn, many_positive[2], 0), OMENDB_OK);
        CHECK(many_agree(txn));
        omendb_txn_rollback(txn);
        omendb_filter_free(filter);
        CHECK_EQ_INT(asking_close(), OMENDB_OK);
    }
}

TEST(the_query_that_is_wrong_is_named)
{
    static uint64_t ids[30];
    omendb_query queries[3] = {OMENDB_QUERY_INIT, OMENDB_QUERY_INIT, OMENDB_QUERY_INIT};
    float vector[ASKING_DIM] = {1};
    CHECK_EQ_INT(asking_open("wrong", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_put_many(0, 20), OMENDB_OK);
    CHECK_EQ_INT(omendb_search_many(asking.docs, NULL, NULL, 0, NULL, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_search_many(asking.docs, NULL, NULL, 1, ids, NULL, NULL), OMENDB_MISUSE);
    for (size_t i = 0; i < 3; i++)
        queries[i].vector = vector;
    CHECK_EQ_INT(omendb_search_many(asking.docs, NULL, queries, 3, NULL, NULL, NULL),
                 OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_search_many(asking.docs, NULL, queries, 3, ids, NULL, NULL), OMENDB_OK);
    queries[2].k = 0;
    CHECK_EQ_INT(omendb_search_many(asking.docs, NULL, queries, 3, ids, NULL, NULL),
                 OMENDB_INVALID);
    CHECK(strncmp(omendb_errmsg(), "query 2: ", 9) == 0);
    queries[2].k = 1;
    queries[1].vector = NULL;
    queries[1].id = 99;
    CHECK_EQ_INT(omendb_search_many(asking.docs, NULL, queries, 3, ids, NULL, NULL),
                 OMENDB_NOTFOUND);
    CHECK(strncmp(omendb_errmsg(), "query 1: id 99", 14) == 0);
    queries[1].id = 3;
    queries[1].struct_size += 8;
    CHECK_EQ_INT(omendb_search_many(asking.docs, NULL, queries, 3, ids, NULL, NULL), OMENDB_MISUSE);
    queries[1].struct_size -= 8;
    queries[1].k = SIZE_MAX;
    CHECK_EQ_INT(omendb_search_many(asking.docs, NULL, queries, 3, ids, NULL, NULL), OMENDB_TOOBIG);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

TEST_MAIN(each_of_many_queries_gives_what_it_gives_alone, the_query_that_is_wrong_is_named)
