/* test_settling.c: a collection that is searched while nothing is added becomes one segment, rows
 * of the log included; one that is written to keeps its segments apart for longer. */
#define _POSIX_C_SOURCE 200809L
#include "omendb.h"
#include "support.h"
#include "test.h"

#include <pthread.h>
#include <time.h>

enum { SETTLING_DIM = 16, SETTLING_LARGE = 6000, SETTLING_SMALL = 900, SETTLING_LOOKS = 40 };

struct settling {
    omendb *db;
    omendb_collection *collection;
    uint64_t added;
};

static int settling_add(struct settling *settling, size_t rows)
{
    static float vectors[SETTLING_LARGE * SETTLING_DIM];
    for (size_t i = 0; i < rows; i++)
        support_vector(settling->added + i, SETTLING_DIM, vectors + i * SETTLING_DIM);
    settling->added += rows;
    return omendb_add_batch(settling->collection, NULL, rows, NULL, vectors, OMENDB_F32, NULL);
}

/* Two segments, of which the smaller is too small to be merged with the larger, and as many rows in
 * the log. */
static int settling_begin(struct settling *settling, int32_t threads)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    *settling = (struct settling){NULL, NULL, 0};
    options.threads = threads;
    options.sync = OMENDB_SYNC_OFF;
    schema.dim = SETTLING_DIM;
    schema.M = 4;
    schema.ef_construction = 16;
    int code = omendb_open(support_path("settling"), &options, &settling->db);
    if (code == OMENDB_OK)
        code = omendb_collection_open_or_create(settling->db, "c", &schema, &settling->collection);
    if (code == OMENDB_OK)
        code = settling_add(settling, SETTLING_LARGE);
    if (code == OMENDB_OK)
        code = omendb_optimize(settling->db, NULL, NULL);
    if (code == OMENDB_OK)
        code = settling_add(settling, SETTLING_SMALL);
    if (code == OMENDB_OK)
        code = omendb_checkpoint(settling->db);
    if (code == OMENDB_OK)
        code = settling_add(settling, SETTLING_SMALL / 2);
    return code == OMENDB_OK ? support_work(settling->db) : code;
}

static int settling_end(struct settling *settling)
{
    omendb_collection_close(settling->collection);
    return omendb_close(settling->db);
}

static uint64_t settling_segments(const struct settling *settling)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    if (omendb_collection_get_stats(settling->collection, &stats) != OMENDB_OK)
        return 0;
    return stats.segments;
}

/* Searches for some 50 ms. */
static int settling_search(const struct settling *settling)
{
    const struct timespec pause = {0, 50000000};
    float vector[SETTLING_DIM], distances[10];
    uint64_t ids[10];
    size_t count;
    int code = OMENDB_OK;
    for (uint64_t i = 0; i < 250 && code == OMENDB_OK; i++) {
        omendb_query query = OMENDB_QUERY_INIT;
        support_vector(1000000 + i, SETTLING_DIM, vector);
        query.vector = vector;
        code = omendb_search(settling->collection, NULL, &query, ids, distances, &count);
    }
    nanosleep(&pause, NULL);
    return code;
}

TEST(segments_of_a_collection_that_is_only_searched_become_one)
{
    struct settling settling;
    uint64_t count;
    CHECK_EQ_INT(settling_begin(&settling, 0), OMENDB_OK);
    CHECK_EQ_INT(settling_segments(&settling), 2);
    for (int look = 0; look < 4 * SETTLING_LOOKS && settling_segments(&settling) != 1; look++) {
        CHECK_EQ_INT(settling_search(&settling), OMENDB_OK);
        CHECK_EQ_INT(support_work(settling.db), OMENDB_OK);
    }
    CHECK_EQ_INT(settling_segments(&settling), 1);
    omendb_stats stats = OMENDB_STATS_INIT;
    CHECK_EQ_INT(omendb_get_stats(settling.db, &stats), OMENDB_OK);
    CHECK(stats.wal_bytes < SETTLING_SMALL / 2 * SETTLING_DIM * sizeof(float));
    CHECK_EQ_INT(omendb_count(settling.collection, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, settling.added);
    CHECK_EQ_INT(support_check(settling.db), OMENDB_OK);
    CHECK_EQ_INT(settling_end(&settling), OMENDB_OK);
}

TEST(segments_stay_apart_while_rows_are_added)
{
    struct settling settling;
    CHECK_EQ_INT(settling_begin(&settling, 0), OMENDB_OK);
    for (int look = 0; look < SETTLING_LOOKS; look++) {
        CHECK_EQ_INT(settling_search(&settling), OMENDB_OK);
        CHECK_EQ_INT(settling_add(&settling, 10), OMENDB_OK);
        CHECK_EQ_INT(support_work(settling.db), OMENDB_OK);
    }
    CHECK_EQ_INT(settling_segments(&settling), 2);
    CHECK_EQ_INT(settling_end(&settling), OMENDB_OK);
}

static void *settling_search_on(void *argument)
{
    const struct settling *settling = argument;
    int code = OMENDB_OK;
    for (int look = 0; look < 4 * SETTLING_LOOKS && code == OMENDB_OK; look++) {
        code = settling_search(settling);
        if (settling_segments(settling) == 1)
            break;
    }
    return code == OMENDB_OK ? argument : NULL;
}

TEST(threads_that_search_see_it_happen_in_the_background)
{
    struct settling settling;
    pthread_t threads[2];
    CHECK_EQ_INT(settling_begin(&settling, 2), OMENDB_OK);
    for (int i = 0; i < 2; i++)
        CHECK_EQ_INT(pthread_create(&threads[i], NULL, settling_search_on, &settling), 0);
    for (int i = 0; i < 2; i++) {
        void *result = NULL;
        CHECK_EQ_INT(pthread_join(threads[i], &result), 0);
        CHECK(result == &settling);
    }
    CHECK_EQ_INT(settling_segments(&settling), 1);
    CHECK_EQ_INT(support_check(settling.db), OMENDB_OK);
    CHECK_EQ_INT(settling_end(&settling), OMENDB_OK);
}

TEST_MAIN(segments_of_a_collection_that_is_only_searched_become_one,
          segments_stay_apart_while_rows_are_added,
          threads_that_search_see_it_happen_in_the_background)
