/* test_hot.c: segments that are searched often are copied into memory: when, that answers stay the
 * same, that the memory limit has the last word, and that the copies make room for what needs it.
 */
#include "omendb.c"

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

/* What the questions ask for in the background is done: the copy, if it may be made. */
static int ask_and_work(const struct world *world)
{
    return ask(world) != 0 && omendb_work(world->db, 1000000, NULL) == OMENDB_OK;
}

static uint64_t copied_bytes(const struct world *world)
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
    CHECK_EQ_INT(copied_bytes(&world), 0);
    const uint64_t before = ask(&world);
    CHECK(before != 0);
    CHECK_EQ_INT(copied_bytes(&world), 0);
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    CHECK(copied_bytes(&world) >= (uint64_t)ROWS * (DIM + 2 * 4 * sizeof(uint32_t)));
    CHECK(ask(&world) == before);
    CHECK_EQ_INT(omendb_check(world.db, NULL, NULL, NULL), OMENDB_OK);
    float vector[DIM];
    vector_of(7, vector);
    CHECK_EQ_INT(omendb_delete(world.collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(copied_bytes(&world), 0); /* another segment */
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
    CHECK(ask_and_work(&world));
    CHECK_EQ_INT(copied_bytes(&world), 0);
    world_close(&world);
    options.memory_limit = UINT64_C(64) << 20;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    CHECK(ask_and_work(&world));
    CHECK(copied_bytes(&world) != 0);
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
    CHECK(ask_and_work(&world));
    CHECK_EQ_INT(copied_bytes(&world), 0);
    world_close(&world);
}

TEST(a_copy_that_there_was_no_memory_for_is_asked_for_again)
{
    const size_t ballast = 4000 * DIM * sizeof(float);
    const char *path = world_make("hot-again");
    omendb_options options = OMENDB_OPTIONS_INIT;
    struct world world;
    CHECK(path != NULL);
    options.threads = 0;
    options.memory_limit = UINT64_C(24) << 20;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    void *taken = memory_alloc(&world.db->memory, ballast);
    CHECK(taken != NULL);
    CHECK(ask_and_work(&world));
    CHECK_EQ_INT(copied_bytes(&world), 0);
    memory_free(&world.db->memory, taken, ballast);
    CHECK(ask_and_work(&world));
    CHECK(copied_bytes(&world) != 0);
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
    CHECK(ask_and_work(&world));
    CHECK(copied_bytes(&world) != 0);
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
    CHECK(ask_and_work(&world));
    CHECK(copied_bytes(&world) != 0);
    CHECK_EQ_INT(omendb_delete(world.collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(atomic_load(&refused), 0);
    CHECK_EQ_INT(copied_bytes(&world), 0);
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
    for (int i = 0; i < 2000 && copied_bytes(&world) == 0; i++)
        usleep(1000);
    CHECK(copied_bytes(&world) != 0);
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
        int was_there = copied_bytes(&world) != 0;
        CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
        given_back += was_there && copied_bytes(&world) == 0;
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
    CHECK(ask_and_work(&world));
    int later = atomic_load(&pages_released);
    CHECK(later > with_the_copy);
    CHECK(ask_and_work(&world));
    CHECK_EQ_INT(atomic_load(&pages_released), later);
    world_close(&world);
}

/* ------------------------------------------------------------------------------------------------
 * memory that lacks at a certain moment */

#define LARGE (UINT64_C(4) << 20) /* blocks of this size are copies, or codes of a merge */

/* What the allocator does, and saw; one thread. */
static struct {
    omendb *db;
    int pauses;             /* who lacks memory says so while a copy is made */
    size_t refused;         /* from this size on, while there are copies; 0: none */
    int refuses_codes;      /* with a copy in use that is gone before the merge tries again */
    uint64_t spare_at_free; /* when a large block was freed */
    int freed;
} plight;

static void *plight_alloc(void *context, size_t size)
{
    (void)context;
    if (plight.db != NULL && plight.pauses && size >= LARGE)
        atomic_store(&plight.db->hot_paused, 1);
    if (plight.db != NULL && plight.refused != 0 && size >= plight.refused &&
        atomic_load(&plight.db->memory.spare) != 0)
        return NULL;
    if (plight.db != NULL && plight.refuses_codes && size >= LARGE) {
        atomic_store(&plight.db->memory.spare, 1);
        return NULL;
    }
    return malloc(size);
}

static void *plight_resize(void *context, void *block, size_t old_size, size_t new_size)
{
    (void)context;
    (void)old_size;
    return realloc(block, new_size);
}

static void plight_release(void *context, void *block, size_t size)
{
    (void)context;
    free(block);
    if (plight.db == NULL)
        return;
    if (size >= LARGE) {
        plight.spare_at_free = atomic_load(&plight.db->memory.spare);
        plight.freed++;
    }
    if (plight.refuses_codes && size == sizeof(struct compact_merge)) /* the end of a merge */
        atomic_store(&plight.db->memory.spare, 0);
}

static int plight_open(struct world *world, const char *path)
{
    static const omendb_allocator allocator = {sizeof allocator, NULL, plight_alloc, plight_resize,
                                               plight_release};
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = 0;
    options.allocator = &allocator;
    memset(&plight, 0, sizeof plight);
    int status = world_open(world, &options, path);
    plight.db = world->db;
    return status;
}

static void plight_close(struct world *world)
{
    memset(&plight, 0, sizeof plight);
    world_close(world);
}

/* Whoever waits for the memory looks at what is spare. */
TEST(a_copy_is_spare_until_its_memory_is_back)
{
    const char *path = world_make("hot-spare");
    struct world world;
    CHECK(path != NULL);
    CHECK_EQ_INT(plight_open(&world, path), OMENDB_OK);
    CHECK(ask_and_work(&world));
    CHECK(copied_bytes(&world) != 0);
    CHECK(hot_give_back(world.db));
    CHECK_EQ_INT(plight.freed, 1);
    CHECK(plight.spare_at_free != 0);
    CHECK_EQ_INT(atomic_load(&world.db->memory.spare), 0);
    plight_close(&world);
}

TEST(a_copy_under_way_is_given_up_for_whoever_lacks_memory)
{
    const char *path = world_make("hot-under-way");
    struct world world;
    CHECK(path != NULL);
    CHECK_EQ_INT(plight_open(&world, path), OMENDB_OK);
    CHECK(ask(&world) != 0);
    plight.pauses = 1;
    CHECK_EQ_INT(omendb_work(world.db, 1000000, NULL), OMENDB_OK);
    plight.pauses = 0;
    CHECK_EQ_INT(plight.freed, 1);
    CHECK_EQ_INT(copied_bytes(&world), 0);
    CHECK_EQ_INT(atomic_load(&world.db->memory.spare), 0);
    hot_resume(world.db);
    CHECK(ask_and_work(&world));
    CHECK(copied_bytes(&world) != 0);
    plight_close(&world);
}

/* A merge that gave up for the sake of copies, which then went by themselves. */
TEST(a_merge_that_gave_up_for_copies_begins_anew_without_them)
{
    const char *path = world_make("hot-gone");
    struct world world;
    CHECK(path != NULL);
    CHECK_EQ_INT(plight_open(&world, path), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(world.collection, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    plight.refuses_codes = 1;
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    plight.refuses_codes = 0;
    CHECK_EQ_INT(atomic_load(&world.db->hot_paused), 0);
    CHECK(ask(&world) != 0);
    plight_close(&world);
}

TEST(the_checkpoint_of_a_backup_gets_the_memory_of_copies)
{
    const char *path = world_make("hot-backup");
    char copy[4200];
    float vector[DIM];
    struct world world;
    CHECK(path != NULL);
    CHECK_EQ_INT(plight_open(&world, path), OMENDB_OK);
    CHECK(ask_and_work(&world));
    vector_of(1, vector);
    CHECK_EQ_INT(omendb_add_batch(world.collection, NULL, 1, NULL, vector, OMENDB_F32, NULL),
                 OMENDB_OK);
    CHECK(copied_bytes(&world) != 0);
    plight.refused = 16384;
    snprintf(copy, sizeof copy, "%s", support_path("hot-backup-copy"));
    CHECK_EQ_INT(omendb_backup(world.db, copy), OMENDB_OK);
    CHECK_EQ_INT(copied_bytes(&world), 0);
    plight_close(&world);
}

static uint64_t clock_us;

static uint64_t hasty_now(void *context)
{
    (void)context;
    return clock_us += 10000;
}

/* Whose time is over after the first checkpoint. */
TEST(a_writer_without_patience_gets_the_memory_of_copies)
{
    static float vectors[3500 * DIM];
    const char *path = world_make("hot-hasty");
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_vfs vfs = *omendb_default_vfs();
    struct world world;
    CHECK(path != NULL);
    vfs.now_us = hasty_now;
    options.threads = 0;
    options.vfs = &vfs;
    options.memory_limit = UINT64_C(24) << 20;
    options.stall_timeout_ms = 1;
    CHECK_EQ_INT(world_open(&world, &options, path), OMENDB_OK);
    CHECK(ask(&world) != 0);
    CHECK_EQ_INT(omendb_work(world.db, UINT64_MAX, NULL), OMENDB_OK);
    CHECK(copied_bytes(&world) != 0);
    for (uint64_t i = 0; i < 3500; i++)
        vector_of(i, vectors + i * DIM);
    CHECK_EQ_INT(omendb_add_batch(world.collection, NULL, 3500, NULL, vectors, OMENDB_F32, NULL),
                 OMENDB_OK);
    CHECK_EQ_INT(copied_bytes(&world), 0);
    world_close(&world);
}

/* Of the reserve they get a little, and what they get later is not of it. */
TEST(thousands_of_snapshots_leave_the_reserve_to_checkpoints)
{
    enum { MOST = 10000 };
    static omendb_txn *open[MOST];
    omendb_options options = OMENDB_OPTIONS_INIT;
    size_t count = 0;
    omendb *db;
    options.threads = 0;
    options.memory_limit = UINT64_C(10) << 20;
    CHECK_EQ_INT(omendb_open(support_path("snapshots"), &options, &db), OMENDB_OK);
    uint64_t allowed = db->memory.limit - db->memory.reserve,
             filled = allowed - atomic_load(&db->memory.used);
    atomic_fetch_add(&db->memory.used, filled);
    while (count < MOST && omendb_txn_begin(db, OMENDB_READ_ONLY, &open[count]) == OMENDB_OK)
        count++;
    CHECK(count >= 100 && count < 2000);
    CHECK(atomic_load(&db->memory.used) - allowed <= db->memory.reserve / 64);
    while (count > 0)
        omendb_txn_rollback(open[--count]);
    atomic_fetch_sub(&db->memory.used, filled);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST_MAIN(thousands_of_snapshots_leave_the_reserve_to_checkpoints,
          a_segment_that_is_searched_often_is_copied_and_answers_stay,
          no_copy_takes_more_than_half_of_the_memory_limit, what_cannot_be_mapped_is_not_copied,
          searches_go_on_while_the_copy_is_made,
          a_copy_that_there_was_no_memory_for_is_asked_for_again,
          a_copy_is_no_reason_for_a_checkpoint, copies_make_room_for_a_merge,
          searches_go_on_while_copies_are_given_back,
          mapped_pages_are_let_go_with_the_copy_and_once_more_later,
          a_copy_is_spare_until_its_memory_is_back,
          a_copy_under_way_is_given_up_for_whoever_lacks_memory,
          a_merge_that_gave_up_for_copies_begins_anew_without_them,
          the_checkpoint_of_a_backup_gets_the_memory_of_copies,
          a_writer_without_patience_gets_the_memory_of_copies)
