/* test_concurrency.c: threads that search, get and scan while others add, put, delete, checkpoint
 * and merge.
 *
 * Every writer owns a range of ids and puts the number of its round into all records of a batch, so
 * that a reader can tell half a batch from a whole one: in one snapshot all records of an owner are
 * of one round. Readers keep snapshots over checkpoints and merges and must get equal answers. Hits
 * must be visible records at their true distance. Short, so that it runs under the thread
 * sanitizer. */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "support.h"
#include "test.h"

#define THREADS_DIM     12
#define THREADS_WRITERS 2
#define THREADS_READERS 3
#define THREADS_BATCH   40
#define THREADS_K       10

struct threads_world {
    omendb *db;
    omendb_collection *collection;
    atomic_int stop;
    atomic_int bad;
    _Atomic uint64_t rounds[THREADS_WRITERS]; /* acknowledged */
    _Atomic uint64_t searches, scans, snapshots, batches;
};

struct threads_one {
    struct threads_world *world;
    uint64_t number;
};

static int threads_expect(struct threads_world *world, int condition, const char *what)
{
    if (condition)
        return 1;
    if (!atomic_exchange(&world->bad, 1))
        fprintf(stderr, "    %s (%s)\n", what, omendb_errmsg());
    atomic_store(&world->stop, 1);
    return 0;
}

/* Component 0 is the round, the others are of the id. */
static void threads_vector(uint64_t id, uint64_t round, float *vector)
{
    support_vector(id + 1, THREADS_DIM, vector);
    vector[0] = (float)(round % 4096);
}

/* Rounds: put the whole batch; every fifth round deletes it first, in the same transaction, every
 * seventh goes without one. */
static void *threads_write(void *argument)
{
    struct threads_one *one = argument;
    struct threads_world *world = one->world;
    float vectors[THREADS_BATCH * THREADS_DIM];
    uint64_t ids[THREADS_BATCH];
    for (uint64_t round = 1; !atomic_load(&world->stop); round++) {
        omendb_txn *txn = NULL;
        int status = OMENDB_OK;
        for (uint64_t i = 0; i < THREADS_BATCH; i++) {
            ids[i] = one->number * 1000 + i;
            threads_vector(ids[i], round, vectors + i * THREADS_DIM);
        }
        if (round % 5 == 0)
            status = omendb_txn_begin(world->db, OMENDB_READ_WRITE, &txn);
        if (status == OMENDB_OK && txn != NULL)
            status = omendb_delete_batch(world->collection, txn, THREADS_BATCH, ids, NULL);
        if (status == OMENDB_OK)
            status = omendb_put_batch(world->collection, txn, THREADS_BATCH, ids, vectors,
                                      OMENDB_F32, NULL);
        if (txn != NULL && status == OMENDB_OK)
            status = omendb_txn_commit(txn);
        else
            omendb_txn_rollback(txn);
        if (!threads_expect(world, status == OMENDB_OK, "a write failed"))
            break;
        atomic_store(&world->rounds[one->number], round);
        atomic_fetch_add(&world->batches, 1);
    }
    return NULL;
}

/* Adds records with ids of their own, and deletes them. */
static void *threads_churn(void *argument)
{
    struct threads_world *world = ((struct threads_one *)argument)->world;
    float vector[THREADS_DIM];
    omendb_record record = OMENDB_RECORD_INIT;
    record.vector = vector;
    for (uint64_t i = 0; !atomic_load(&world->stop); i++) {
        record.id = 100000 + i;
        threads_vector(record.id, i, vector);
        if (!threads_expect(world, omendb_add(world->collection, NULL, &record, NULL) == OMENDB_OK,
                            "an add failed"))
            break;
        if (i >= 20 &&
            !threads_expect(world,
                            omendb_delete(world->collection, NULL, record.id - 20) == OMENDB_OK,
                            "a delete failed"))
            break;
    }
    return NULL;
}

static void *threads_maintain(void *argument)
{
    struct threads_world *world = ((struct threads_one *)argument)->world;
    for (uint64_t i = 0; !atomic_load(&world->stop); i++) {
        const struct timespec pause = {0, 3000000};
        const int status =
            i % 4 == 3 ? omendb_optimize(world->db, NULL, NULL) : omendb_checkpoint(world->db);
        if (!threads_expect(world, status == OMENDB_OK, "maintenance failed"))
            break;
        nanosleep(&pause, NULL);
    }
    return NULL;
}

/* All records of one owner are of one round, at least `least`. */
static void threads_read_owner(struct threads_world *world, omendb_txn *txn, uint64_t owner,
                               uint64_t least)
{
    float vector[THREADS_DIM], wanted[THREADS_DIM], round = -1.0f;
    omendb_rows *rows = NULL;
    uint64_t id = 0, seen = 0;
    int status = omendb_scan(world->collection, txn, owner * 1000, owner * 1000 + 999, &rows);
    while (status == OMENDB_OK) {
        status = omendb_rows_next(rows, &id, OMENDB_F32, vector);
        if (status != OMENDB_OK)
            break;
        threads_vector(id, 0, wanted);
        threads_expect(world,
                       memcmp(vector + 1, wanted + 1, (THREADS_DIM - 1) * sizeof(float)) == 0,
                       "a record has another's vector");
        threads_expect(world, seen == 0 || vector[0] == round, "half a batch was seen");
        round = vector[0];
        seen++;
    }
    omendb_rows_close(rows);
    threads_expect(world, status == OMENDB_DONE, "a scan failed");
    threads_expect(world, seen == THREADS_BATCH || (seen == 0 && least == 0),
                   "a batch is not complete");
    threads_expect(world, least >= 4096 || seen == 0 || (uint64_t)round >= least || round < 100.0f,
                   "an acknowledged batch is not seen");
    atomic_fetch_add(&world->scans, 1);
}

static int threads_search(struct threads_world *world, omendb_txn *txn, uint64_t value, int exact,
                          uint64_t *ids, float *distances, size_t *count)
{
    float vector[THREADS_DIM];
    omendb_query query = OMENDB_QUERY_INIT;
    support_vector(value, THREADS_DIM, vector);
    query.vector = vector;
    query.k = THREADS_K;
    query.exact = (uint32_t)exact;
    const int status = omendb_search(world->collection, txn, &query, ids, distances, count);
    atomic_fetch_add(&world->searches, 1);
    return threads_expect(world, status == OMENDB_OK, "a search failed");
}

/* Each hit of a snapshot is a record of it, at its distance. */
static void threads_check_hits(struct threads_world *world, omendb_txn *txn, uint64_t value,
                               const uint64_t *ids, const float *distances, size_t count)
{
    float vector[THREADS_DIM], asked[THREADS_DIM];
    support_vector(value, THREADS_DIM, asked);
    for (size_t i = 0; i < count; i++) {
        const int status = omendb_get(world->collection, txn, ids[i], OMENDB_F32, vector);
        if (!threads_expect(world, status == OMENDB_OK, "a hit is not in the snapshot"))
            return;
        threads_expect(world, support_l2(vector, asked, THREADS_DIM) == distances[i],
                       "a hit has another distance");
        threads_expect(world, i == 0 || distances[i - 1] <= distances[i], "hits are not sorted");
    }
}

/* Without a snapshot of the caller's: all pages show one state, of each owner one round or none. */
static void threads_read_pages(struct threads_world *world, int exact)
{
    float asked[THREADS_DIM] = {0}, vector[THREADS_DIM], squares[THREADS_WRITERS], distances[7];
    uint64_t ids[7], seen[THREADS_WRITERS] = {0};
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_pages *pages = NULL;
    size_t count = 0;
    query.vector = asked;
    query.exact = (uint32_t)exact;
    int status = omendb_pages_open(world->collection, NULL, &query, &pages);
    while (status == OMENDB_OK) {
        status = omendb_pages_next(pages, 7, 0, ids, distances, &count);
        for (size_t i = 0; i < count; i++) {
            const uint64_t owner = ids[i] / 1000;
            if (owner >= THREADS_WRITERS)
                continue;
            threads_vector(ids[i], 0, vector);
            const float square = distances[i] - support_l2(vector, asked, THREADS_DIM);
            threads_expect(world, seen[owner] == 0 || squares[owner] == square,
                           "pages show two rounds");
            squares[owner] = square;
            seen[owner]++;
        }
    }
    omendb_pages_close(pages);
    threads_expect(world, status == OMENDB_DONE, "a page failed");
    for (size_t i = 0; i < THREADS_WRITERS; i++)
        threads_expect(world, seen[i] == 0 || seen[i] == THREADS_BATCH, "pages are not complete");
}

/* Counts of a snapshot, and many searches at once, of which both are the same. */
static void threads_ask_more(struct threads_world *world, omendb_txn *txn, uint64_t value)
{
    float vector[THREADS_DIM], distances[2 * THREADS_K];
    uint64_t ids[2 * THREADS_K], counted = 0, nulls = 0, records = 0;
    omendb_query queries[2] = {OMENDB_QUERY_INIT, OMENDB_QUERY_INIT};
    omendb_facets *facets = NULL;
    size_t counts[2];
    support_vector(value, THREADS_DIM, vector);
    for (size_t i = 0; i < 2; i++) {
        queries[i].vector = vector;
        queries[i].k = THREADS_K;
        queries[i].exact = 1;
    }
    int status = omendb_search_many(world->collection, NULL, queries, 2, ids, distances, counts);
    threads_expect(world, status == OMENDB_OK && counts[0] == counts[1], "many searches failed");
    threads_expect(world, memcmp(ids, ids + THREADS_K, sizeof *ids * counts[0]) == 0,
                   "searches of one call see two states");
    status = omendb_facets_open(world->collection, txn, NULL, NULL, NULL, "none", 0, &facets);
    if (!threads_expect(world, status == OMENDB_OK, "counting failed"))
        return;
    omendb_facets_totals(facets, &counted, &nulls, NULL);
    omendb_facets_close(facets);
    status = omendb_count(world->collection, txn, &records);
    threads_expect(world, status == OMENDB_OK && counted == records && nulls == records,
                   "facets count other records");
}

static void *threads_read(void *argument)
{
    struct threads_one *one = argument;
    struct threads_world *world = one->world;
    struct support_random random = {one->number + 77};
    uint64_t ids[THREADS_K], again[THREADS_K], before[THREADS_WRITERS], digest = 0, same = 0;
    float distances[THREADS_K];
    while (!atomic_load(&world->stop)) {
        omendb_txn *txn = NULL;
        size_t count = 0, count_again = 0;
        const uint64_t value = support_next(&random);
        for (size_t i = 0; i < THREADS_WRITERS; i++)
            before[i] = atomic_load(&world->rounds[i]);
        if (!threads_expect(world, omendb_txn_begin(world->db, OMENDB_READ_ONLY, &txn) == OMENDB_OK,
                            "a snapshot failed"))
            break;
        for (uint64_t i = 0; i < THREADS_WRITERS; i++)
            threads_read_owner(world, txn, i, before[i]);
        threads_search(world, NULL, value, 0, ids, distances, &count);
        if (threads_search(world, txn, value, (int)(value % 2), ids, distances, &count))
            threads_check_hits(world, txn, value, ids, distances, count);
        if (value % 4 == 1) {
            threads_read_pages(world, (int)(value / 4 % 2));
            threads_ask_more(world, txn, value);
        }
        if (value % 4 == 0) {
            const struct timespec pause = {0, 8000000};
            threads_search(world, txn, value, 1, ids, distances, &count);
            threads_expect(world, support_digest(world->db, txn, &digest) == OMENDB_OK, "digest");
            nanosleep(&pause, NULL);
            threads_expect(world, support_digest(world->db, txn, &same) == OMENDB_OK, "digest");
            threads_expect(world, digest == same, "a snapshot changed");
            threads_search(world, txn, value, 1, again, distances, &count_again);
            threads_expect(world,
                           count == count_again && memcmp(ids, again, count * sizeof *ids) == 0,
                           "a snapshot answers differently");
        }
        omendb_txn_rollback(txn);
        atomic_fetch_add(&world->snapshots, 1);
    }
    return NULL;
}

static int threads_open(struct threads_world *world, const char *path, uint32_t io)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.threads = 2;
    options.wal_limit = 256 * 1024;
    options.tail_limit = 16 * 1024;
    options.sync = OMENDB_SYNC_NORMAL;
    options.io = io;
    schema.dim = THREADS_DIM;
    schema.M = 8;
    schema.ef_construction = 40;
    if (omendb_open(path, &options, &world->db) != OMENDB_OK)
        return 0;
    return omendb_collection_open_or_create(world->db, "c", &schema, &world->collection) ==
           OMENDB_OK;
}

static void threads_run(const char *path, uint32_t io, int writers_only)
{
    static struct threads_world world;
    static void *(*const kinds[])(void *) = {threads_write,    threads_write, threads_churn,
                                             threads_maintain, threads_read,  threads_read,
                                             threads_read};
    const size_t count = writers_only ? 4 : 4 + THREADS_READERS;
    struct threads_one ones[4 + THREADS_READERS];
    pthread_t threads[4 + THREADS_READERS];
    const double seconds =
        1.5 * (support_scale() < 1.0 ? 0.5 + support_scale() / 2 : support_scale());
    const struct timespec run = {(time_t)seconds,
                                 (long)((seconds - (double)(time_t)seconds) * 1e9)};
    memset(&world, 0, sizeof world);
    CHECK(threads_open(&world, path, io));
    for (size_t i = 0; i < count; i++) {
        ones[i] = (struct threads_one){&world, i};
        CHECK(pthread_create(&threads[i], NULL, kinds[i], &ones[i]) == 0);
    }
    nanosleep(&run, NULL);
    atomic_store(&world.stop, 1);
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    printf("  %llu batches, %llu snapshots, %llu scans, %llu searches\n",
           (unsigned long long)world.batches, (unsigned long long)world.snapshots,
           (unsigned long long)world.scans, (unsigned long long)world.searches);
    if (!world.bad)
        threads_expect(&world, support_check(world.db) == OMENDB_OK, "check finds problems");
    for (uint64_t i = 0; i < THREADS_WRITERS && !world.bad; i++)
        threads_read_owner(&world, NULL, i, world.rounds[i]);
    omendb_collection_close(world.collection);
    CHECK_EQ_INT(omendb_close(world.db), OMENDB_OK);
    CHECK(!world.bad);
    CHECK(world.batches > 0);
    if (strcmp(path, ":memory:") == 0)
        return;
    CHECK(threads_open(&world, path, io));
    world.bad = 0;
    for (uint64_t i = 0; i < THREADS_WRITERS; i++)
        threads_read_owner(&world, NULL, i, world.rounds[i]);
    CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
    omendb_collection_close(world.collection);
    CHECK_EQ_INT(omendb_close(world.db), OMENDB_OK);
    CHECK(!world.bad);
}

TEST(snapshots_stand_still_while_others_write_and_merge)
{
    threads_run(support_path("threads"), OMENDB_IO_MAP, 0);
}
TEST(so_they_do_without_mapping)
{
    threads_run(support_path("threads-pread"), OMENDB_IO_PREAD, 0);
}
TEST(so_they_do_in_memory)
{
    threads_run(":memory:", OMENDB_IO_MAP, 0);
}
TEST(writers_alone_lose_nothing)
{
    threads_run(support_path("threads-writers"), OMENDB_IO_MAP, 1);
}

/* Each thread adds with automatic ids: every id is given once. */
static void *threads_add_automatic(void *argument)
{
    struct threads_one *one = argument;
    float vector[THREADS_DIM];
    uint64_t id = 0;
    omendb_record record = OMENDB_RECORD_INIT;
    record.vector = vector;
    for (uint64_t i = 0; i < 60; i++) {
        support_vector(one->number * 1000 + i, THREADS_DIM, vector);
        record.id = OMENDB_ID_AUTO;
        if (!threads_expect(one->world,
                            omendb_add(one->world->collection, NULL, &record, &id) == OMENDB_OK,
                            "an automatic add failed"))
            break;
        float stored[THREADS_DIM];
        const int status = omendb_get(one->world->collection, NULL, id, OMENDB_F32, stored);
        threads_expect(one->world,
                       status == OMENDB_OK && memcmp(stored, vector, sizeof stored) == 0,
                       "an automatic id was given twice, or is not seen at once");
    }
    return NULL;
}

TEST(automatic_ids_are_given_once)
{
    static struct threads_world world;
    struct threads_one ones[4];
    pthread_t threads[4];
    uint64_t count = 0;
    memset(&world, 0, sizeof world);
    CHECK(threads_open(&world, support_path("automatic"), OMENDB_IO_MAP));
    for (size_t i = 0; i < 4; i++) {
        ones[i] = (struct threads_one){&world, i};
        CHECK(pthread_create(&threads[i], NULL, threads_add_automatic, &ones[i]) == 0);
    }
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ_INT(omendb_count(world.collection, NULL, &count), OMENDB_OK);
    omendb_collection_close(world.collection);
    CHECK_EQ_INT(omendb_close(world.db), OMENDB_OK);
    CHECK(!world.bad);
    CHECK_EQ_INT(count, 240);
}

/* One record a millisecond. */
static void *threads_trickle(void *argument)
{
    struct threads_world *world = argument;
    float vector[THREADS_DIM] = {0};
    omendb_record record = OMENDB_RECORD_INIT;
    record.vector = vector;
    while (!atomic_load(&world->stop)) {
        const struct timespec pause = {0, 1000000};
        threads_expect(world, omendb_add(world->collection, NULL, &record, NULL) == OMENDB_OK,
                       "a small add failed beside a batch that does not fit");
        nanosleep(&pause, NULL);
    }
    return NULL;
}

/* What others write meanwhile gives a checkpoint something to do; it gives no room for this. */
static void threads_refuse(size_t count, const char *why)
{
    enum { ROWS = 120000 };
    static struct threads_world world;
    static float vectors[ROWS * THREADS_DIM];
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_stats before = OMENDB_STATS_INIT, after = OMENDB_STATS_INIT;
    const struct timespec beginning = {0, 300000000};
    pthread_t thread;
    memset(&world, 0, sizeof world);
    options.memory_limit = 2 * OMENDB_MEMORY_LIMIT_MIN;
    options.threads = 2;
    options.sync = OMENDB_SYNC_OFF;
    options.stall_timeout_ms = 60000;
    schema.dim = THREADS_DIM;
    CHECK(count <= ROWS);
    CHECK_EQ_INT(omendb_open(support_path("trickle"), &options, &world.db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open_or_create(world.db, "c", &schema, &world.collection),
                 OMENDB_OK);
    CHECK(pthread_create(&thread, NULL, threads_trickle, &world) == 0);
    nanosleep(&beginning, NULL);
    CHECK_EQ_INT(omendb_get_stats(world.db, &before), OMENDB_OK);
    const int code =
        omendb_add_batch(world.collection, NULL, count, NULL, vectors, OMENDB_F32, NULL);
    const int told = strstr(omendb_errmsg(), why) != NULL;
    omendb_get_stats(world.db, &after);
    atomic_store(&world.stop, 1);
    pthread_join(thread, NULL);
    omendb_collection_close(world.collection);
    CHECK_EQ_INT(omendb_close(world.db), OMENDB_OK);
    CHECK(!world.bad);
    CHECK_EQ_INT(code, OMENDB_NOMEM);
    CHECK(told);
    CHECK(after.checkpoints - before.checkpoints < 30);
}

TEST(a_batch_that_never_fits_is_refused_after_few_checkpoints)
{
    threads_refuse(80000, "kept for checkpoints");
}
TEST(a_batch_whose_vectors_alone_never_fit_is_refused_at_once)
{
    threads_refuse(120000, "split it");
}

/* ------------------------------------------------------------------------------------------------
 * keys and metadata: two threads at one record, at one key, and one that looks */

#define THREADS_EDITS 150

static int threads_put_key(struct threads_world *world, omendb_txn *txn, uint64_t id,
                           const char *key, int adds)
{
    float vector[THREADS_DIM];
    omendb_record record = OMENDB_RECORD_INIT;
    threads_vector(id, 0, vector);
    record.id = id;
    record.vector = vector;
    record.key = key;
    return adds ? omendb_add(world->collection, txn, &record, NULL)
                : omendb_put(world->collection, txn, &record, NULL);
}

/* Of record 1 its own field; what it wrote last is there until it writes again. */
static void *threads_update(void *argument)
{
    struct threads_one *one = argument;
    struct threads_world *world = one->world;
    char patch[64], metadata[64], field[8];
    const char *const fields[] = {field};
    snprintf(field, sizeof field, "f%llu", (unsigned long long)one->number);
    for (int i = 1; i <= THREADS_EDITS && !atomic_load(&world->stop); i++) {
        snprintf(patch, sizeof patch, "{\"%s\":%d}", field, i);
        if (!threads_expect(world, omendb_update(world->collection, NULL, 1, patch) == OMENDB_OK,
                            "an update failed") ||
            !threads_expect(world,
                            omendb_get_metadata(world->collection, NULL, 1, fields, 1, metadata,
                                                sizeof metadata, NULL) == OMENDB_OK &&
                                strcmp(metadata, patch) == 0,
                            "an update was lost"))
            break;
        atomic_fetch_add(&world->batches, 1);
    }
    return NULL;
}

/* Adds the keys that the other one adds, too; rounds[] counts how many it got. */
static void *threads_add_keys(void *argument)
{
    struct threads_one *one = argument;
    struct threads_world *world = one->world;
    char key[16];
    for (int i = 0; i < THREADS_EDITS && !atomic_load(&world->stop); i++) {
        snprintf(key, sizeof key, "key %d", i);
        const int status = threads_put_key(world, NULL, OMENDB_ID_AUTO, key, 1);
        if (status == OMENDB_OK)
            atomic_fetch_add(&world->rounds[one->number], 1);
        threads_expect(world,
                       (status == OMENDB_OK || status == OMENDB_EXISTS) &&
                           omendb_find(world->collection, NULL, key, NULL) == OMENDB_OK,
                       "an added key is not there");
        atomic_fetch_add(&world->batches, 1);
    }
    return NULL;
}

/* The key "steady" goes from record to record, and at each moment one has it. */
static void *threads_move_key(void *argument)
{
    struct threads_world *world = ((struct threads_one *)argument)->world;
    for (uint64_t i = 0; i < THREADS_EDITS && !atomic_load(&world->stop); i++) {
        omendb_txn *txn = NULL;
        int status = omendb_txn_begin(world->db, OMENDB_READ_WRITE, &txn);
        if (status == OMENDB_OK)
            status = threads_put_key(world, txn, 500000 + i % 3, NULL, 0);
        if (status == OMENDB_OK)
            status = threads_put_key(world, txn, 500000 + (i + 1) % 3, "steady", 0);
        if (status == OMENDB_OK)
            status = omendb_txn_commit(txn);
        else
            omendb_txn_rollback(txn);
        threads_expect(world, status == OMENDB_OK, "a key did not move");
        atomic_fetch_add(&world->batches, 1);
    }
    return NULL;
}

static void *threads_find(void *argument)
{
    struct threads_world *world = ((struct threads_one *)argument)->world;
    while (!atomic_load(&world->stop)) {
        omendb_txn *txn = NULL;
        char key[16] = "";
        uint64_t id = 0;
        int status = omendb_find(world->collection, NULL, "steady", NULL);
        if (status == OMENDB_OK)
            status = omendb_txn_begin(world->db, OMENDB_READ_ONLY, &txn);
        if (status == OMENDB_OK)
            status = omendb_find(world->collection, txn, "steady", &id);
        if (status == OMENDB_OK)
            status = omendb_get_key(world->collection, txn, id, key, sizeof key, NULL);
        omendb_txn_rollback(txn);
        if (!threads_expect(world, status == OMENDB_OK && strcmp(key, "steady") == 0,
                            "a key leads nowhere, or elsewhere"))
            break;
        atomic_fetch_add(&world->searches, 1);
    }
    return NULL;
}

static int threads_begin_documents(struct threads_world *world)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    memset(world, 0, sizeof *world);
    options.threads = 2;
    schema.dim = THREADS_DIM;
    int status = omendb_open(support_path("documents"), &options, &world->db);
    if (status == OMENDB_OK)
        status = omendb_collection_create(world->db, "docs", &schema, &world->collection);
    if (status == OMENDB_OK)
        status = threads_put_key(world, NULL, 1, NULL, 0);
    return status == OMENDB_OK ? threads_put_key(world, NULL, 500000, "steady", 0) : status;
}

/* Two threads at the same work, one that finds, checkpoints and merges meanwhile. */
static void threads_documents(void *(*first)(void *), void *(*second)(void *),
                              struct threads_world *world)
{
    pthread_t threads[3];
    struct threads_one ones[3] = {{world, 0}, {world, 1}, {world, 2}};
    void *(*const work[3])(void *) = {first, second, threads_find};
    CHECK_EQ_INT(threads_begin_documents(world), OMENDB_OK);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, work[i], &ones[i]) == 0);
    for (int i = 0; atomic_load(&world->batches) < 2 * THREADS_EDITS && !atomic_load(&world->stop);
         i++)
        threads_expect(world,
                       (i % 3 == 2 ? omendb_optimize(world->db, NULL, NULL)
                                   : omendb_checkpoint(world->db)) == OMENDB_OK,
                       "a checkpoint or a merge failed");
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    atomic_store(&world->stop, 1);
    pthread_join(threads[2], NULL);
    CHECK(!world->bad);
    CHECK(world->searches > 0);
    CHECK_EQ_INT(support_check(world->db), OMENDB_OK);
}

static void threads_end_documents(struct threads_world *world)
{
    omendb_collection_close(world->collection);
    CHECK_EQ_INT(omendb_close(world->db), OMENDB_OK);
}

TEST(updates_of_different_fields_of_one_record_are_all_kept)
{
    struct threads_world world;
    char metadata[64], expected[64];
    snprintf(expected, sizeof expected, "{\"f0\":%d,\"f1\":%d}", THREADS_EDITS, THREADS_EDITS);
    threads_documents(threads_update, threads_update, &world);
    CHECK_EQ_INT(
        omendb_get_metadata(world.collection, NULL, 1, NULL, 0, metadata, sizeof metadata, NULL),
        OMENDB_OK);
    CHECK_EQ_STR(metadata, expected);
    threads_end_documents(&world);
}

TEST(a_key_that_two_threads_add_is_given_once)
{
    struct threads_world world;
    uint64_t count = 0;
    threads_documents(threads_add_keys, threads_add_keys, &world);
    CHECK_EQ_INT(world.rounds[0] + world.rounds[1], THREADS_EDITS);
    CHECK_EQ_INT(omendb_count(world.collection, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, THREADS_EDITS + 2);
    threads_end_documents(&world);
}

TEST(a_key_that_moves_is_found_at_each_moment)
{
    struct threads_world world;
    threads_documents(threads_move_key, threads_update, &world);
    threads_end_documents(&world);
}

TEST_MAIN(snapshots_stand_still_while_others_write_and_merge, so_they_do_without_mapping,
          so_they_do_in_memory, writers_alone_lose_nothing, automatic_ids_are_given_once,
          a_batch_that_never_fits_is_refused_after_few_checkpoints,
          a_batch_whose_vectors_alone_never_fit_is_refused_at_once,
          updates_of_different_fields_of_one_record_are_all_kept,
          a_key_that_two_threads_add_is_given_once, a_key_that_moves_is_found_at_each_moment)
