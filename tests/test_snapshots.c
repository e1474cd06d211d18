/* test_snapshots.c: a snapshot gives the same answers whatever happens after it began, and holds
 * space only as long as it is open; a commit that lands in the midst of a merge or a checkpoint is
 * neither lost nor seen by an older snapshot.
 *
 * The race needs no second thread and no hook: the file system under the database commits from
 * inside of a write call of the merge. */
#define _POSIX_C_SOURCE 200809L

#include "omendb.h"

#include <time.h>

#include "test.h"

#include "support.h"

#define SNAPSHOTS_DIM  8
#define SNAPSHOTS_IDS  400
#define SNAPSHOTS_MANY 1000

/* What the database holds at a commit: for each id the value of its vector, 0: not there. */
struct snapshots_model {
    uint32_t values[SNAPSHOTS_IDS];
};

struct snapshots_held {
    omendb_txn *txn;
    struct snapshots_model model;
};

static struct snapshots_held snapshots_all[SNAPSHOTS_MANY];

static omendb *snapshots_open(const char *path, int32_t threads, const omendb_vfs *vfs)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db = NULL;
    options.threads = threads;
    options.sync = OMENDB_SYNC_NORMAL;
    options.vfs = vfs;
    return omendb_open(path, &options, &db) == OMENDB_OK ? db : NULL;
}

static omendb_collection *snapshots_collection(omendb *db)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *collection = NULL;
    schema.dim = SNAPSHOTS_DIM;
    schema.M = 4;
    schema.ef_construction = 20;
    omendb_collection_open_or_create(db, "docs", &schema, &collection);
    return collection;
}

static int snapshots_put(omendb_collection *collection, struct snapshots_model *model, uint64_t id,
                         uint32_t value)
{
    int code = support_put(collection, NULL, id, value, SNAPSHOTS_DIM);
    if (code == OMENDB_OK)
        model->values[id] = value;
    return code;
}

static int snapshots_delete(omendb_collection *collection, struct snapshots_model *model,
                            uint64_t id)
{
    int code = omendb_delete(collection, NULL, id);
    if (code == OMENDB_OK)
        model->values[id] = 0;
    return code == OMENDB_NOTFOUND && model->values[id] == 0 ? OMENDB_OK : code;
}

/* ------------------------------------------------------------------------------------------------
 * comparing all answers with the model */

static int snapshots_compare_scan(omendb_collection *collection, omendb_txn *txn,
                                  const struct snapshots_model *model, uint64_t *count)
{
    float vector[SNAPSHOTS_DIM], expected[SNAPSHOTS_DIM];
    omendb_rows *rows = NULL;
    uint64_t id, next = 0;
    int code = omendb_scan(collection, txn, 0, SNAPSHOTS_IDS, &rows), same = code == OMENDB_OK;
    *count = 0;
    while (same && (code = omendb_rows_next(rows, &id, OMENDB_F32, vector)) == OMENDB_OK) {
        while (next < SNAPSHOTS_IDS && model->values[next] == 0)
            next++;
        same = id == next && next < SNAPSHOTS_IDS;
        if (same)
            support_vector(model->values[next++], SNAPSHOTS_DIM, expected);
        same = same && memcmp(vector, expected, sizeof vector) == 0;
        ++*count;
    }
    while (next < SNAPSHOTS_IDS && model->values[next] == 0)
        next++;
    omendb_rows_close(rows);
    return same && code == OMENDB_DONE && next == SNAPSHOTS_IDS;
}

/* The nearest rows of a query, exactly: their distances as the model has them. */
static int snapshots_compare_search(omendb_collection *collection, omendb_txn *txn,
                                    const struct snapshots_model *model, uint64_t value)
{
    omendb_query query = OMENDB_QUERY_INIT;
    float vector[SNAPSHOTS_DIM], stored[SNAPSHOTS_DIM], distances[1], nearest = -1.0f;
    uint64_t ids[1];
    size_t count = 0;
    support_vector(value, SNAPSHOTS_DIM, vector);
    for (uint64_t id = 0; id < SNAPSHOTS_IDS; id++) {
        support_vector(model->values[id], SNAPSHOTS_DIM, stored);
        float distance = support_l2(vector, stored, SNAPSHOTS_DIM);
        if (model->values[id] != 0 && (nearest < 0.0f || distance < nearest))
            nearest = distance;
    }
    query.vector = vector;
    query.k = 1;
    query.exact = 1;
    if (omendb_search(collection, txn, &query, ids, distances, &count) != OMENDB_OK)
        return 0;
    return count == (size_t)(nearest >= 0.0f) && (count == 0 || distances[0] == nearest);
}

static int snapshots_compare(omendb_collection *collection, omendb_txn *txn,
                             const struct snapshots_model *model, uint64_t value)
{
    float vector[SNAPSHOTS_DIM], expected[SNAPSHOTS_DIM];
    uint64_t scanned, counted, id = value % SNAPSHOTS_IDS;
    if (!snapshots_compare_scan(collection, txn, model, &scanned) ||
        omendb_count(collection, txn, &counted) != OMENDB_OK || counted != scanned ||
        !snapshots_compare_search(collection, txn, model, value))
        return 0;
    int code = omendb_get(collection, txn, id, OMENDB_F32, vector);
    if (model->values[id] == 0)
        return code == OMENDB_NOTFOUND;
    support_vector(model->values[id], SNAPSHOTS_DIM, expected);
    return code == OMENDB_OK && memcmp(vector, expected, sizeof vector) == 0;
}

/* ------------------------------------------------------------------------------------------------
 * a thousand of them */

static uint64_t snapshots_files(omendb *db)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    return omendb_get_stats(db, &stats) == OMENDB_OK ? stats.file_bytes : UINT64_MAX;
}

static int snapshots_change(omendb *db, omendb_collection *collection,
                            struct snapshots_model *model, struct support_random *random)
{
    int code = OMENDB_OK;
    for (int i = 0; i < 6 && code == OMENDB_OK; i++) {
        uint64_t id = support_below(random, SNAPSHOTS_IDS), what = support_below(random, 3);
        code = what == 0 ? snapshots_delete(collection, model, id)
                         : snapshots_put(collection, model, id,
                                         1 + (uint32_t)support_below(random, 1000000));
    }
    if (code == OMENDB_OK && support_below(random, 40) == 0)
        code = omendb_checkpoint(db);
    if (code == OMENDB_OK && support_below(random, 20) == 0)
        code = omendb_work(db, 2000, NULL);
    if (code == OMENDB_OK && support_below(random, 150) == 0)
        code = omendb_optimize(db, NULL, NULL);
    return code;
}

static void snapshots_hold_many(int32_t threads)
{
    struct support_random random = {support_seed(5)};
    struct snapshots_model model = {{0}};
    omendb_stats stats = OMENDB_STATS_INIT;
    const size_t many = (size_t)support_scaled(SNAPSHOTS_MANY, 50);
    omendb *db = snapshots_open(support_path("many"), threads, NULL);
    omendb_collection *collection = db == NULL ? NULL : snapshots_collection(db);
    CHECK(collection != NULL && many <= SNAPSHOTS_MANY);
    for (uint64_t id = 0; id < SNAPSHOTS_IDS; id++)
        CHECK_EQ_INT(snapshots_put(collection, &model, id, (uint32_t)id + 1), OMENDB_OK);
    for (size_t i = 0; i < many; i++) {
        CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &snapshots_all[i].txn), OMENDB_OK);
        snapshots_all[i].model = model;
        CHECK_EQ_INT(snapshots_change(db, collection, &model, &random), OMENDB_OK);
        const struct snapshots_held *any = &snapshots_all[support_below(&random, i + 1)];
        CHECK(snapshots_compare(collection, any->txn, &any->model, support_next(&random)));
    }
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(db, &stats), OMENDB_OK);
    CHECK_EQ_INT(stats.open_transactions, many);
    CHECK(stats.oldest_commit > SNAPSHOTS_IDS && stats.oldest_age_us > 0);
    CHECK(stats.pinned_rows > many && stats.pinned_bytes > stats.pinned_rows * SNAPSHOTS_DIM);
    const uint64_t held = snapshots_files(db);
    for (size_t left = many; left > 0; left--) {
        const size_t at = (size_t)support_below(&random, left);
        struct snapshots_held *each = &snapshots_all[at];
        CHECK(snapshots_compare(collection, each->txn, &each->model, support_next(&random)));
        omendb_txn_rollback(each->txn);
        *each = snapshots_all[left - 1];
    }
    CHECK_EQ_INT(omendb_get_stats(db, &stats), OMENDB_OK);
    CHECK(stats.open_transactions == 0 && stats.oldest_commit == 0 && stats.oldest_age_us == 0);
    CHECK(stats.pinned_rows == 0 && stats.pinned_bytes == 0);
    if (threads == 0)
        CHECK_EQ_INT(omendb_work(db, UINT64_MAX, NULL), OMENDB_OK);
    for (int waited = 0; snapshots_files(db) * 2 > held && waited < 10000; waited += 10)
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    CHECK(snapshots_files(db) * 2 < held);
    CHECK(snapshots_compare(collection, NULL, &model, 17));
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(a_thousand_snapshots_each_give_the_answers_of_their_commit)
{
    snapshots_hold_many(0);
}

TEST(a_thousand_snapshots_hold_beside_background_threads)
{
    snapshots_hold_many(2);
}

static double snapshots_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

#define SNAPSHOTS_TIMED 40000

/* Which one ends next: the last, the first, any. */
enum snapshots_order { SNAPSHOTS_LAST, SNAPSHOTS_FIRST, SNAPSHOTS_ANY, SNAPSHOTS_ORDERS };

/* Nanoseconds to begin and to end one of `count`. */
static void snapshots_time(omendb *db, size_t count, enum snapshots_order order, double *to_begin,
                           double *to_end)
{
    static omendb_txn *all[SNAPSHOTS_TIMED];
    struct support_random random = {3};
    const double begin = snapshots_now_ns();
    for (size_t i = 0; i < count; i++)
        CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &all[i]), OMENDB_OK);
    const double begun = snapshots_now_ns();
    for (size_t left = count; left > 0; left--) {
        const size_t at = order == SNAPSHOTS_LAST    ? left - 1
                          : order == SNAPSHOTS_FIRST ? count - left
                                                     : (size_t)support_below(&random, left);
        omendb_txn_rollback(all[at]);
        if (order == SNAPSHOTS_ANY)
            all[at] = all[left - 1];
    }
    *to_begin = (begun - begin) / (double)count;
    *to_end = (snapshots_now_ns() - begun) / (double)count;
}

/* Ten times as many: a list that is walked would take ten times as long for each. */
TEST(beginning_and_ending_takes_the_same_however_many_are_open)
{
    struct snapshots_model model = {{0}};
    omendb *db = snapshots_open(support_path("timed"), 0, NULL);
    omendb_collection *collection = db == NULL ? NULL : snapshots_collection(db);
    CHECK(collection != NULL);
    CHECK_EQ_INT(snapshots_put(collection, &model, 1, 1), OMENDB_OK);
    for (int order = 0; order < SNAPSHOTS_ORDERS; order++) {
        double few_begin, few_end, begin, end;
        snapshots_time(db, SNAPSHOTS_TIMED / 10, (enum snapshots_order)order, &few_begin, &few_end);
        snapshots_time(db, SNAPSHOTS_TIMED, (enum snapshots_order)order, &begin, &end);
        printf("    %.0f ns to begin, %.0f ns to end\n", begin, end);
        CHECK(begin < 5 * few_begin + 500 && end < 5 * few_end + 500);
    }
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * commits in the midst of merges and checkpoints */

/* Commits once, from inside of the `at`-th write to a segment since it was armed. */
static struct snapshots_race {
    omendb *db;
    omendb_collection *collection;
    struct snapshots_model *model;
    int at, writes, status;
    omendb_txn *before; /* begun just before the commit */
    struct snapshots_model model_before;
} snapshots_race;

struct snapshots_file {
    void *inner;
    int is_segment;
};

static omendb_vfs snapshots_vfs;

/* A delete, a put, and a transaction with both, of rows that the merge is copying. */
static void snapshots_commit_now(struct snapshots_race *race)
{
    omendb_txn *txn = NULL;
    race->model_before = *race->model;
    race->status = omendb_txn_begin(race->db, OMENDB_READ_ONLY, &race->before);
    if (race->status == OMENDB_OK)
        race->status = snapshots_delete(race->collection, race->model, 11);
    if (race->status == OMENDB_OK)
        race->status = snapshots_put(race->collection, race->model, 12, 5000012);
    if (race->status == OMENDB_OK)
        race->status = omendb_txn_begin(race->db, OMENDB_READ_WRITE, &txn);
    if (race->status == OMENDB_OK)
        race->status = omendb_delete(race->collection, txn, 13);
    if (race->status == OMENDB_OK)
        race->status = support_put(race->collection, txn, 14, 5000014, SNAPSHOTS_DIM);
    if (race->status == OMENDB_OK)
        race->status = omendb_txn_commit(txn);
    race->model->values[13] = 0;
    race->model->values[14] = 5000014;
}

static int snapshots_race_open(void *context, void *directory, const char *name, int flags,
                               void **file)
{
    const omendb_vfs *inner = omendb_default_vfs();
    struct snapshots_file *made = malloc(sizeof *made);
    (void)context;
    if (made == NULL)
        return OMENDB_NOMEM;
    made->is_segment = strncmp(name, "seg-", 4) == 0;
    int code = inner->open(inner->context, directory, name, flags, &made->inner);
    if (code != OMENDB_OK)
        free(made);
    else
        *file = made;
    return code;
}

static int snapshots_race_close(void *context, void *file)
{
    const omendb_vfs *inner = omendb_default_vfs();
    struct snapshots_file *given = file;
    (void)context;
    int code = inner->close(inner->context, given->inner);
    free(given);
    return code;
}

static int snapshots_race_write(void *context, void *file, uint64_t offset, const void *buffer,
                                size_t size)
{
    const omendb_vfs *inner = omendb_default_vfs();
    struct snapshots_file *given = file;
    struct snapshots_race *race = &snapshots_race;
    (void)context;
    if (given->is_segment && race->at != 0 && ++race->writes == race->at)
        snapshots_commit_now(race);
    return inner->write(inner->context, given->inner, offset, buffer, size);
}

#define SNAPSHOTS_FORWARD(name, parameters, arguments)                                             \
    static int snapshots_race_##name parameters                                                    \
    {                                                                                              \
        const omendb_vfs *inner = omendb_default_vfs();                                            \
        struct snapshots_file *given = file;                                                       \
        (void)context;                                                                             \
        return inner->name arguments;                                                              \
    }
SNAPSHOTS_FORWARD(size, (void *context, void *file, uint64_t *size),
                  (inner->context, given->inner, size))
SNAPSHOTS_FORWARD(read, (void *context, void *file, uint64_t offset, void *buffer, size_t size),
                  (inner->context, given->inner, offset, buffer, size))
SNAPSHOTS_FORWARD(truncate, (void *context, void *file, uint64_t size),
                  (inner->context, given->inner, size))
SNAPSHOTS_FORWARD(allocate, (void *context, void *file, uint64_t size),
                  (inner->context, given->inner, size))
SNAPSHOTS_FORWARD(sync, (void *context, void *file), (inner->context, given->inner))
SNAPSHOTS_FORWARD(lock, (void *context, void *file, int lock), (inner->context, given->inner, lock))
SNAPSHOTS_FORWARD(map, (void *context, void *file, uint64_t size, const void **address),
                  (inner->context, given->inner, size, address))

static void snapshots_build_vfs(void)
{
    snapshots_vfs = *omendb_default_vfs();
    snapshots_vfs.open = snapshots_race_open;
    snapshots_vfs.close = snapshots_race_close;
    snapshots_vfs.write = snapshots_race_write;
    snapshots_vfs.size = snapshots_race_size;
    snapshots_vfs.read = snapshots_race_read;
    snapshots_vfs.truncate = snapshots_race_truncate;
    snapshots_vfs.allocate = snapshots_race_allocate;
    snapshots_vfs.sync = snapshots_race_sync;
    snapshots_vfs.lock = snapshots_race_lock;
    snapshots_vfs.map = snapshots_race_map;
}

/* Two segments, with ended rows in them, and rows in memory; then the merge, or the checkpoint,
 * with a commit in its `at`-th write. *hit = 0: there is no such write. */
static void snapshots_check_race(int at, int in_checkpoint, int *hit)
{
    static struct snapshots_model model;
    const char *path = support_path("race");
    memset(&model, 0, sizeof model);
    snapshots_build_vfs();
    omendb *db = snapshots_open(path, 0, &snapshots_vfs);
    omendb_collection *collection = db == NULL ? NULL : snapshots_collection(db);
    omendb_txn *older, *younger;
    CHECK(collection != NULL);
    for (uint64_t id = 0; id < SNAPSHOTS_IDS; id++) {
        CHECK_EQ_INT(snapshots_put(collection, &model, id, (uint32_t)id + 1), OMENDB_OK);
        if (id == SNAPSHOTS_IDS / 2)
            CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    }
    if (!in_checkpoint)
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &older), OMENDB_OK);
    const struct snapshots_model model_older = model;
    CHECK_EQ_INT(snapshots_delete(collection, &model, 3), OMENDB_OK);
    CHECK_EQ_INT(snapshots_put(collection, &model, 4, 4000004), OMENDB_OK);
    if (!in_checkpoint)
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    snapshots_race = (struct snapshots_race){.db = db, .collection = collection, .model = &model};
    snapshots_race.at = at;
    CHECK_EQ_INT(in_checkpoint ? omendb_checkpoint(db) : omendb_optimize(db, NULL, NULL),
                 OMENDB_OK);
    snapshots_race.at = 0;
    *hit = snapshots_race.before != NULL;
    if (*hit) {
        CHECK_EQ_INT(snapshots_race.status, OMENDB_OK);
        CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_ONLY, &younger), OMENDB_OK);
        CHECK(snapshots_compare(collection, older, &model_older, 12));
        CHECK(
            snapshots_compare(collection, snapshots_race.before, &snapshots_race.model_before, 13));
        CHECK(snapshots_compare(collection, younger, &model, 14));
        CHECK(snapshots_compare(collection, NULL, &model, 11));
        CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
        CHECK(snapshots_compare(collection, older, &model_older, 12));
        CHECK(
            snapshots_compare(collection, snapshots_race.before, &snapshots_race.model_before, 13));
        CHECK(snapshots_compare(collection, younger, &model, 14));
        omendb_txn_rollback(snapshots_race.before);
        omendb_txn_rollback(younger);
    }
    omendb_txn_rollback(older);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    db = snapshots_open(path, 0, NULL);
    collection = db == NULL ? NULL : snapshots_collection(db);
    CHECK(collection != NULL);
    CHECK(snapshots_compare(collection, NULL, &model, 11));
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

TEST(a_commit_in_the_midst_of_a_merge_is_neither_lost_nor_seen_too_early)
{
    int hit = 1, at = 1;
    for (; hit && test_failures == 0; at++)
        snapshots_check_race(at, 0, &hit);
    CHECK(at > 2);
}

TEST(a_commit_in_the_midst_of_a_checkpoint_is_neither_lost_nor_seen_too_early)
{
    int hit = 1, at = 1;
    for (; hit && test_failures == 0; at++)
        snapshots_check_race(at, 1, &hit);
    CHECK(at > 2);
}

TEST_MAIN(a_thousand_snapshots_each_give_the_answers_of_their_commit,
          a_thousand_snapshots_hold_beside_background_threads,
          beginning_and_ending_takes_the_same_however_many_are_open,
          a_commit_in_the_midst_of_a_merge_is_neither_lost_nor_seen_too_early,
          a_commit_in_the_midst_of_a_checkpoint_is_neither_lost_nor_seen_too_early)
