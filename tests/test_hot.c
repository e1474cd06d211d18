/* test_hot.c: segments that are searched often are copied into memory: when, that answers stay the
 * same, that the memory limit has the last word, and that the copies make room for what needs it.
 */
#define _DEFAULT_SOURCE

#include <pthread.h>
#include <stdatomic.h>

#include "support.h"
#include "test.h"

#define DIM     400
#define ROWS    12000
#define K       5
#define QUERIES 150 /* more than a segment needs to be copied */

struct world {
    omendb *db;
    omendb_collection *collection;
};

/* Small integers, seven of which are not zero. */
static void vector_of(uint64_t value, float *vector)
{
    struct support_random random = {value};
    memset(vector, 0, DIM * sizeof *vector);
    for (int i = 0; i < 7; i++)
        vector[support_below(&random, DIM)] = (float)(1 + support_below(&random, 9));
}

static int world_open(struct world *world, const omendb_options *options, const char *path)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = DIM;
    schema.M = 4;
    schema.ef_construction = 8;
    world->collection = NULL;
    int status = omendb_open(path, options, &world->db);
    if (status == OMENDB_OK)
        status = omendb_collection_open_or_create(world->db, "c", &schema, &world->collection);
    return status;
}

static void world_close(struct world *world)
{
    omendb_collection_close(world->collection);
    CHECK_EQ_INT(omendb_close(world->db), OMENDB_OK);
}

/* A database of one segment. */
static int world_build(const char *path)
{
    static float vectors[1000 * DIM];
    omendb_options options = OMENDB_OPTIONS_INIT;
    struct world world;
    int status;
    options.sync = OMENDB_SYNC_OFF;
    options.tail_limit = UINT64_C(1) << 30;
    options.wal_limit = UINT64_C(1) << 30;
    status = world_open(&world, &options, path);
    for (uint64_t first = 0; first < ROWS && status == OMENDB_OK; first += 1000) {
        for (uint64_t i = 0; i < 1000; i++)
            vector_of(first + i, vectors + i * DIM);
        status = omendb_add_batch(world.collection, NULL, 1000, NULL, vectors, OMENDB_F32, NULL);
    }
    if (status == OMENDB_OK)
        status = omendb_optimize(world.db, NULL, NULL);
    omendb_collection_close(world.collection);
    return omendb_close(world.db) == OMENDB_OK && status == OMENDB_OK;
}

/* The same for each test: building takes longer than copying. */
static const char *world_make(const char *name)
{
    static char first[4200];
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db;
    if (first[0] == 0) {
        snprintf(first, sizeof first, "%s", support_path("hot-first"));
        if (!world_build(first))
            return NULL;
    }
    const char *path = support_path(name);
    options.threads = 0;
    if (omendb_open(first, &options, &db) != OMENDB_OK)
        return NULL;
    int status = omendb_backup(db, path);
    return omendb_close(db) == OMENDB_OK && status == OMENDB_OK ? path : NULL;
}

/* Asks QUERIES questions; a digest of the answers. */
static uint64_t ask(const struct world *world)
{
    omendb_query query = OMENDB_QUERY_INIT;
    float vector[DIM], distances[K];
    uint64_t ids[K], digest = 1;
    size_t count;
    query.vector = vector;
    query.k = K;
    for (uint64_t i = 0; i < QUERIES; i++) {
        vector_of(1000000 + i, vector);
        if (omendb_search(world->collection, NULL, &query, ids, distances, &count) != OMENDB_OK)
            return 0;
        digest = support_hash(ids, count * sizeof *ids, digest);
        digest = support_hash(distances, count * sizeof *distances, digest);
    }
    return digest;
}

static uint64_t hot_bytes(const struct world *world)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    return omendb_collection_get_stats(world->collection, &stats) == OMENDB_OK ? stats.hot_bytes
                                                                               : UINT64_MAX;
}

TEST(a_segment_that_is_searched_often_is_copied_and_answers_stay)
{
    const char *path = world_make("hot");
    omendb_options options = OMENDB_OPTIONS_INIT;
    struct world world;
    CHECK(path != NULL);
    options.threads = 0;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK_EQ_INT(hot_bytes(&world), 0);
    const uint64_t before = ask(&world);
    CHECK(before != 0);
    CHECK_EQ_INT(hot_bytes(&world), 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK(hot_bytes(&world) >= (uint64_t)ROWS * (DIM + 2 * 4 * sizeof(uint32_t)));
    CHECK(ask(&world) == before);
    CHECK_EQ_INT(omendb_check(world.db, NULL, NULL, NULL), OMENDB_OK);
    float vector[DIM];
    vector_of(7, vector);
    CHECK_EQ_INT(omendb_delete(world.collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(hot_bytes(&world), 0); /* another segment */
    world_close(&world);
}

TEST(no_copy_takes_more_than_half_of_the_memory_limit)
{
    const char *path = world_make("hot-limit");
    omendb_options options = OMENDB_OPTIONS_INIT;
    struct world world;
    CHECK(path != NULL);
    options.threads = 0;
    options.memory_limit = UINT64_C(10) << 20;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    CHECK(ask(&world) != 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK_EQ_INT(hot_bytes(&world), 0);
    world_close(&world);
    options.memory_limit = UINT64_C(64) << 20;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    CHECK(ask(&world) != 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK(hot_bytes(&world) != 0);
    world_close(&world);
}

/* What a vfs cannot map lies in memory already, whatever `io` says. */
TEST(what_cannot_be_mapped_is_not_copied)
{
    const char *path = world_make("hot-unmapped");
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_vfs vfs = *omendb_default_vfs();
    struct world world;
    CHECK(path != NULL);
    vfs.map = NULL;
    vfs.unmap = NULL;
    options.threads = 0;
    options.vfs = &vfs;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    CHECK(ask(&world) != 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK_EQ_INT(hot_bytes(&world), 0);
    world_close(&world);
}

TEST(a_copy_that_there_was_no_memory_for_is_asked_for_again)
{
    static float vectors[4000 * DIM];
    const char *path = world_make("hot-again");
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_txn *txn;
    struct world world;
    CHECK(path != NULL);
    options.threads = 0;
    options.memory_limit = UINT64_C(24) << 20;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(world.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (uint64_t i = 0; i < 4000; i++)
        vector_of(i, vectors + i * DIM);
    CHECK_EQ_INT(omendb_add_batch(world.collection, txn, 4000, NULL, vectors, OMENDB_F32, NULL),
                 OMENDB_OK);
    CHECK(ask(&world) != 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK_EQ_INT(hot_bytes(&world), 0);
    omendb_txn_rollback(txn);
    CHECK(ask(&world) != 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK(hot_bytes(&world) != 0);
    world_close(&world);
}

static uint64_t checkpoints(const struct world *world)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    return omendb_get_stats(world->db, &stats) == OMENDB_OK ? stats.checkpoints : UINT64_MAX;
}

TEST(a_copy_is_no_reason_for_a_checkpoint)
{
    const char *path = world_make("hot-pressure");
    omendb_options options = OMENDB_OPTIONS_INIT;
    float vector[DIM];
    struct world world;
    CHECK(path != NULL);
    options.threads = 0;
    options.memory_limit = UINT64_C(18) << 20;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    vector_of(1, vector);
    CHECK_EQ_INT(omendb_add_batch(world.collection, NULL, 1, NULL, vector, OMENDB_F32, NULL),
                 OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK); /* from here on it counts */
    CHECK_EQ_INT(omendb_add_batch(world.collection, NULL, 1, NULL, vector, OMENDB_F32, NULL),
                 OMENDB_OK);
    const uint64_t before = checkpoints(&world);
    CHECK(ask(&world) != 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK(hot_bytes(&world) != 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK_EQ_INT(checkpoints(&world), before);
    world_close(&world);
}

static void count_refusals(void *context, int code, const char *message)
{
    (void)message;
    *(atomic_int *)context += code == OMENDB_NOMEM;
}

/* What a merge of the segment takes, and what its copy takes, is together more than there is. */
TEST(copies_make_room_for_a_merge)
{
    const char *path = world_make("hot-merge");
    omendb_options options = OMENDB_OPTIONS_INIT;
    atomic_int refused = 0;
    struct world world;
    CHECK(path != NULL);
    options.threads = 0;
    options.memory_limit = UINT64_C(22) << 20;
    options.log = count_refusals;
    options.log_context = &refused;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    CHECK(ask(&world) != 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK(hot_bytes(&world) != 0);
    CHECK_EQ_INT(omendb_delete(world.collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(atomic_load(&refused), 0);
    CHECK_EQ_INT(hot_bytes(&world), 0);
    CHECK(ask(&world) != 0);
    world_close(&world);
}

struct asker {
    const struct world *world;
    uint64_t expected;
    atomic_int *bad;
    const atomic_int *stop; /* NULL: after three rounds */
};

static void *ask_in_thread(void *argument)
{
    struct asker *asker = argument;
    for (int round = 0; asker->stop == NULL ? round < 3 : !atomic_load(asker->stop); round++)
        if (ask(asker->world) != asker->expected)
            atomic_store(asker->bad, 1);
    return NULL;
}

TEST(searches_go_on_while_the_copy_is_made)
{
    const char *path = world_make("hot-threads");
    omendb_options options = OMENDB_OPTIONS_INIT;
    struct world world;
    pthread_t threads[3];
    atomic_int bad = 0;
    CHECK(path != NULL);
    options.threads = 0;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    struct asker asker = {&world, ask(&world), &bad, NULL};
    world_close(&world);
    options.threads = 2;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    for (int i = 0; i < 3; i++)
        CHECK_EQ_INT(pthread_create(&threads[i], NULL, ask_in_thread, &asker), 0);
    for (int i = 0; i < 3; i++)
        CHECK_EQ_INT(pthread_join(threads[i], NULL), 0);
    CHECK_EQ_INT(atomic_load(&bad), 0);
    for (int i = 0; i < 2000 && hot_bytes(&world) == 0; i++)
        usleep(1000);
    CHECK(hot_bytes(&world) != 0);
    world_close(&world);
}

/* A merge in another collection takes the memory of the copies again and again. */
TEST(searches_go_on_while_copies_are_given_back)
{
    static float vectors[1000 * DIM];
    const char *path = world_make("hot-back");
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *other;
    struct world world;
    pthread_t thread;
    atomic_int bad = 0, stop = 0;
    uint64_t records = 0;
    int given_back = 0;
    CHECK(path != NULL);
    options.threads = 0;
    options.memory_limit = UINT64_C(20) << 20;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    struct asker asker = {&world, ask(&world), &bad, &stop};
    schema.dim = DIM;
    schema.M = 4;
    schema.ef_construction = 8;
    CHECK_EQ_INT(omendb_collection_open_or_create(world.db, "d", &schema, &other), OMENDB_OK);
    CHECK_EQ_INT(pthread_create(&thread, NULL, ask_in_thread, &asker), 0);
    for (uint64_t round = 0; round < 9; round++) {
        for (uint64_t i = 0; i < 1000; i++)
            vector_of(round * 1000 + i, vectors + i * DIM);
        CHECK_EQ_INT(omendb_add_batch(other, NULL, 1000, NULL, vectors, OMENDB_F32, NULL),
                     OMENDB_OK);
        if (round < 5)
            continue;
        int was_there = hot_bytes(&world) != 0;
        CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
        given_back += was_there && hot_bytes(&world) == 0;
        CHECK(ask(&world) == asker.expected);
        CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    }
    atomic_store(&stop, 1);
    CHECK_EQ_INT(pthread_join(thread, NULL), 0);
    CHECK_EQ_INT(atomic_load(&bad), 0);
    CHECK(given_back != 0);
    /* What is deleted from a segment whose copy was given back stays deleted. */
    CHECK_EQ_INT(omendb_delete(world.collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    omendb_collection_close(other);
    world_close(&world);
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    CHECK_EQ_INT(omendb_count(world.collection, NULL, &records), OMENDB_OK);
    CHECK_EQ_INT(records, ROWS - 1);
    CHECK_EQ_INT(omendb_check(world.db, NULL, NULL, NULL), OMENDB_OK);
    world_close(&world);
}

static atomic_int pages_released;

static void count_advice(void *context, const void *address, uint64_t size, int advice)
{
    if (advice == OMENDB_ADVISE_DONTNEED)
        atomic_fetch_add(&pages_released, 1);
    omendb_default_vfs()->advise(context, address, size, advice);
}

TEST(mapped_pages_are_let_go_with_the_copy_and_once_more_later)
{
    const char *path = world_make("hot-released");
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_vfs vfs = *omendb_default_vfs();
    struct world world;
    CHECK(path != NULL);
    vfs.advise = count_advice;
    options.threads = 0;
    options.vfs = &vfs;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    CHECK(ask(&world) != 0);
    int before = atomic_load(&pages_released);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    int with_the_copy = atomic_load(&pages_released);
    CHECK(with_the_copy > before);
    CHECK(ask(&world) != 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    int later = atomic_load(&pages_released);
    CHECK(later > with_the_copy);
    CHECK(ask(&world) != 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK_EQ_INT(atomic_load(&pages_released), later);
    world_close(&world);
}

TEST_MAIN(a_segment_that_is_searched_often_is_copied_and_answers_stay,
          no_copy_takes_more_than_half_of_the_memory_limit, what_cannot_be_mapped_is_not_copied,
          searches_go_on_while_the_copy_is_made,
          a_copy_that_there_was_no_memory_for_is_asked_for_again,
          a_copy_is_no_reason_for_a_checkpoint, copies_make_room_for_a_merge,
          searches_go_on_while_copies_are_given_back,
          mapped_pages_are_let_go_with_the_copy_and_once_more_later)
