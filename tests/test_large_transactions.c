/* test_large_transactions.c: a transaction that outgrows its share of memory_limit is told so by
 * the call that would make it too large, and can still be committed as it was before. */
#include "internals.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "support.h"
#include "test.h"

#define DIM   32
#define BATCH 1000

static omendb *db;
static omendb_collection *rows;

static int open_limited(const char *path, uint64_t limit)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.memory_limit = limit;
    options.sync = OMENDB_SYNC_OFF;
    schema.dim = DIM;
    int status = omendb_open(path, &options, &db);
    return status == OMENDB_OK ? omendb_collection_open_or_create(db, "rows", &schema, &rows)
                               : status;
}

static int close_all(void)
{
    omendb_collection_close(rows);
    return omendb_close(db);
}

static int put_batch(omendb_txn *txn, uint64_t first)
{
    static uint64_t ids[BATCH];
    static float vectors[BATCH * DIM];
    for (size_t i = 0; i < BATCH; i++) {
        ids[i] = first + i;
        support_vector(first + i, DIM, vectors + i * DIM);
    }
    return omendb_put_batch(rows, txn, BATCH, ids, vectors, OMENDB_F32, NULL);
}

/* Puts until it is refused; returns how many batches went in. */
static uint64_t fill(omendb_txn *txn, uint64_t first, int *status)
{
    uint64_t batches = 0;
    do
        *status = put_batch(txn, first + batches * BATCH);
    while (*status == OMENDB_OK && ++batches < 1000);
    return batches;
}

/* Each round replaces what the one before stored, as much of it as goes into a transaction. */
static void commit_what_fits(const char *path, uint64_t limit)
{
    omendb_txn *txn;
    uint64_t count, most = 0;
    int status;
    CHECK_EQ_INT(open_limited(path, limit), OMENDB_OK);
    for (int round = 0; round < 2; round++) {
        CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
        uint64_t batches = fill(txn, 0, &status);
        most = batches > most ? batches : most;
        CHECK_EQ_INT(status, OMENDB_TOOBIG);
        CHECK(strstr(omendb_errmsg(), "commit in parts") != NULL);
        CHECK(batches > 2 && batches < 1000);
        CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
        CHECK_EQ_INT(omendb_count(rows, NULL, &count), OMENDB_OK);
        CHECK_EQ_INT(count, most * BATCH);
    }
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(what_fits_can_be_committed)
{
    commit_what_fits(support_path("fits"), UINT64_C(16) << 20);
}

TEST(so_it_can_in_a_database_of_memory)
{
    commit_what_fits(":memory:", UINT64_C(16) << 20);
}

TEST(a_second_transaction_shares_with_the_first)
{
    omendb_txn *first, *second;
    int status;
    CHECK_EQ_INT(open_limited(support_path("shared"), UINT64_C(16) << 20), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &first), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &second), OMENDB_OK);
    uint64_t alone = fill(first, 0, &status);
    CHECK_EQ_INT(status, OMENDB_TOOBIG);
    CHECK_EQ_INT(put_batch(second, 1000000), OMENDB_TOOBIG);
    omendb_txn_rollback(first);
    CHECK_EQ_INT((long long)fill(second, 1000000, &status), (long long)alone);
    CHECK_EQ_INT(status, OMENDB_TOOBIG);
    CHECK_EQ_INT(omendb_txn_commit(second), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(without_a_limit_there_is_no_share)
{
    omendb_txn *txn;
    CHECK_EQ_INT(open_limited(support_path("unlimited"), 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (uint64_t i = 0; i < 100; i++)
        CHECK_EQ_INT(put_batch(txn, i * BATCH), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

/* Prepares until no more fits, then gives each its outcome: nothing may stand in its way. */
static void commit_all_that_was_prepared(const char *path, uint64_t limit)
{
    omendb_txn *txn;
    char name[32];
    uint64_t rows_prepared = 0, count, batches = 2;
    int status = OMENDB_OK, names = 0;
    CHECK_EQ_INT(open_limited(path, limit), OMENDB_OK);
    while (status == OMENDB_OK) {
        CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
        for (uint64_t i = 0; i < batches && status == OMENDB_OK; i++)
            status = put_batch(txn, rows_prepared + i * BATCH);
        if (status != OMENDB_OK) {
            omendb_txn_rollback(txn);
            break;
        }
        snprintf(name, sizeof name, "txn-%d", names);
        status = omendb_txn_prepare(txn, name);
        rows_prepared += status == OMENDB_OK ? batches * BATCH : 0;
        names += status == OMENDB_OK;
    }
    CHECK_EQ_INT(status, OMENDB_TOOBIG);
    CHECK(names > 1);
    for (int i = 0; i < names; i++) {
        snprintf(name, sizeof name, "txn-%d", i);
        CHECK_EQ_INT(omendb_commit_prepared(db, name), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_count(rows, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, rows_prepared);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(put_batch(txn, 0), OMENDB_OK); /* its share is free again */
    omendb_txn_rollback(txn);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(what_could_be_prepared_can_be_committed)
{
    commit_all_that_was_prepared(support_path("prepared"), UINT64_C(16) << 20);
    commit_all_that_was_prepared(":memory:", UINT64_C(64) << 20);
}

/* ------------------------------------------------------------------------------------------------
 * beside writers */

static _Atomic int writers_end;

struct writer {
    pthread_t thread;
    uint64_t seed, batches;
};

/* To the end, also where a batch is refused: the readers are not to notice. */
static void *write_on(void *argument)
{
    float vectors[200 * DIM];
    struct writer *writer = argument;
    struct support_random random = {support_seed(writer->seed)};
    while (!atomic_load(&writers_end)) {
        for (size_t i = 0; i < 200; i++)
            support_vector(support_next(&random), DIM, vectors + i * DIM);
        writer->batches +=
            omendb_add_batch(rows, NULL, 200, NULL, vectors, OMENDB_F32, NULL) == OMENDB_OK;
    }
    return NULL;
}

/* The first code but OMENDB_OK of what a reader does. */
static int read_once(void)
{
    static float queries[32 * DIM];
    uint64_t count, ids[10 * 32];
    size_t found;
    omendb_txn *txn = NULL;
    omendb_rows *cursor = NULL;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_stats stats = OMENDB_STATS_INIT;
    int status = omendb_txn_begin(db, OMENDB_READ_ONLY, &txn);
    query.vector = queries;
    if (status == OMENDB_OK)
        status = omendb_count(rows, txn, &count);
    if (status == OMENDB_OK)
        status = omendb_search(rows, txn, &query, ids, NULL, &found);
    if (status == OMENDB_OK)
        status = omendb_search_batch(rows, txn, &query, queries, 32, ids, NULL, NULL);
    if (status == OMENDB_OK)
        status = omendb_scan(rows, txn, 0, 1000, &cursor);
    omendb_rows_close(cursor);
    if (status == OMENDB_OK)
        status = omendb_get_stats(db, &stats);
    omendb_txn_rollback(txn);
    return status;
}

TEST(readers_are_not_refused_because_of_writers)
{
    struct writer writers[2];
    const struct timespec pause = {0, 1000000};
    int refused = 0;
    atomic_store(&writers_end, 0);
    CHECK_EQ_INT(open_limited(support_path("readers"), UINT64_C(12) << 20), OMENDB_OK);
    for (size_t i = 0; i < 2; i++) {
        writers[i] = (struct writer){.seed = i};
        CHECK_EQ_INT(pthread_create(&writers[i].thread, NULL, write_on, &writers[i]), 0);
    }
    for (time_t end = time(NULL) + 4; time(NULL) < end; nanosleep(&pause, NULL))
        refused += read_once() != OMENDB_OK;
    atomic_store(&writers_end, 1);
    for (size_t i = 0; i < 2; i++)
        pthread_join(writers[i].thread, NULL);
    CHECK_EQ_INT(refused, 0);
    for (size_t i = 0; i < 2; i++)
        CHECK(writers[i].batches > 0);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

/* As if writers had filled all that they may, to the last byte, with what nobody gives back. */
TEST(readers_are_not_refused_where_writers_filled_their_part)
{
    CHECK_EQ_INT(open_limited(support_path("filled"), UINT64_C(12) << 20), OMENDB_OK);
    CHECK_EQ_INT(put_batch(NULL, 0), OMENDB_OK);
    work_stop(db);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    scratch_drop_idle(db);
    struct memory *memory = &db->memory;
    const uint64_t filled = memory->limit - memory->reserve - atomic_load(&memory->used);
    atomic_fetch_add(&memory->used, filled);
    void *more = memory_alloc(memory, 1);
    const int read_status = read_once();
    atomic_fetch_sub(&memory->used, filled);
    CHECK(more == NULL);
    CHECK_EQ_INT(read_status, OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST_MAIN(what_fits_can_be_committed, so_it_can_in_a_database_of_memory,
          a_second_transaction_shares_with_the_first, without_a_limit_there_is_no_share,
          what_could_be_prepared_can_be_committed, readers_are_not_refused_because_of_writers,
          readers_are_not_refused_where_writers_filled_their_part)
