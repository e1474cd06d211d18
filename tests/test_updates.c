/* test_updates.c: fields that change while vector and key stay: who sees which of them, in memory,
 * in the log, in overlays, after merges and after reopening; what they cost. */
#define _GNU_SOURCE
#include "support.h"
#include "test.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#define UPDATES_DIM       8
#define UPDATES_MANY      400
#define UPDATES_GONE      (-1)
#define UPDATES_SNAPSHOTS 3

static struct {
    char path[4352];
    omendb *db;
    omendb_collection *docs;
    omendb_options options;
    /* What is expected of each record: its field n, or that there is none. */
    int now[UPDATES_MANY];
    omendb_txn *snapshots[UPDATES_SNAPSHOTS];
    int then[UPDATES_SNAPSHOTS][UPDATES_MANY];
} updates;

static int updates_open(void)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = UPDATES_DIM;
    int status = omendb_open(updates.path, &updates.options, &updates.db);
    return status != OMENDB_OK
               ? status
               : omendb_collection_open_or_create(updates.db, "docs", &schema, &updates.docs);
}

static int updates_begin(const char *name)
{
    memset(&updates, 0, sizeof updates);
    omendb_options_init(&updates.options);
    updates.options.threads = 0;
    updates.options.sync = OMENDB_SYNC_OFF;
    snprintf(updates.path, sizeof updates.path, "%s", support_path(name));
    for (size_t id = 0; id < UPDATES_MANY; id++)
        updates.now[id] = UPDATES_GONE;
    return updates_open();
}

static int updates_close(void)
{
    omendb_collection_close(updates.docs);
    return omendb_close(updates.db);
}

static int updates_end(void)
{
    int status = updates_close();
    support_remove(updates.path);
    return status;
}

static int updates_reopen(void)
{
    int status = updates_close();
    return status == OMENDB_OK ? updates_open() : status;
}

static int updates_put(omendb_txn *txn, uint64_t id, int n)
{
    char json[64], key[32];
    float vector[UPDATES_DIM];
    omendb_record record = OMENDB_RECORD_INIT;
    support_vector(id, UPDATES_DIM, vector);
    snprintf(json, sizeof json, "{\"n\":%d,\"text\":\"put %d\"}", n, n);
    snprintf(key, sizeof key, "key %llu", (unsigned long long)id);
    record.id = id;
    record.vector = vector;
    record.metadata = json;
    record.key = id % 2 ? key : NULL;
    return omendb_put(updates.docs, txn, &record, NULL);
}

static int updates_update(omendb_txn *txn, uint64_t id, int n)
{
    char json[64];
    snprintf(json, sizeof json, "{\"n\":%d}", n);
    return omendb_update(updates.docs, txn, id, json);
}

static int updates_fill(uint64_t first, uint64_t last)
{
    int status = OMENDB_OK;
    for (uint64_t id = first; id < last && status == OMENDB_OK; id++) {
        status = updates_put(NULL, id, (int)id);
        updates.now[id] = (int)id;
    }
    return status;
}

/* Field n of a record as metadata tell it; UPDATES_GONE: there is no such record. */
static int updates_read(omendb_txn *txn, uint64_t id)
{
    static const char *const fields[] = {"n"};
    char json[64];
    int n = -2;
    if (omendb_get_metadata(updates.docs, txn, id, fields, 1, json, sizeof json, NULL) != OMENDB_OK)
        return UPDATES_GONE;
    return sscanf(json, "{\"n\":%d}", &n) == 1 ? n : -2;
}

/* Whether count, cursor and search under "n >= low AND n < high" find what is expected. */
static int updates_range_agrees(omendb_txn *txn, const int *expected, int low, int high)
{
    char text[64];
    omendb_filter *filter = NULL;
    omendb_rows *rows = NULL;
    uint64_t counted = 0, matching = 0, id = 0, ids[UPDATES_MANY];
    float distances[UPDATES_MANY], vector[UPDATES_DIM];
    size_t found = 0, shown = 0;
    omendb_query query = OMENDB_QUERY_INIT;
    snprintf(text, sizeof text, "n >= %d AND n < %d", low, high);
    for (size_t i = 0; i < UPDATES_MANY; i++)
        matching += expected[i] >= low && expected[i] < high;
    int good =
        omendb_filter_compile(updates.db, text, &filter) == OMENDB_OK &&
        omendb_count_matching(updates.docs, txn, filter, NULL, NULL, &counted) == OMENDB_OK &&
        counted == matching;
    good = good &&
           omendb_scan_matching(updates.docs, txn, filter, 0, UINT64_MAX - 1, &rows) == OMENDB_OK;
    while (good && omendb_rows_next(rows, &id, OMENDB_F32, NULL) == OMENDB_OK) {
        good = expected[id] >= low && expected[id] < high;
        shown++;
    }
    omendb_rows_close(rows);
    good = good && shown == matching;
    support_vector((uint64_t)low + 1, UPDATES_DIM, vector);
    query.vector = vector;
    query.filter = filter;
    for (size_t k = 7; k <= UPDATES_MANY && good; k += UPDATES_MANY - 7) {
        query.k = k;
        good = omendb_search(updates.docs, txn, &query, ids, distances, &found) == OMENDB_OK &&
               found == (matching < k ? matching : k);
        for (size_t i = 0; i < found && good; i++)
            good = expected[ids[i]] >= low && expected[ids[i]] < high;
    }
    omendb_filter_free(filter);
    if (!good)
        fprintf(stderr, "%s: %zu match, %zu counted, %zu shown, %zu found\n", text,
                (size_t)matching, (size_t)counted, shown, found);
    return good;
}

static int updates_agree(omendb_txn *txn, const int *expected)
{
    int good = 1;
    for (uint64_t id = 0; id < UPDATES_MANY && good; id++) {
        uint64_t holder = id;
        char key[32];
        good = updates_read(txn, id) == expected[id];
        snprintf(key, sizeof key, "key %llu", (unsigned long long)id);
        if (good && id % 2)
            good = (omendb_find(updates.docs, txn, key, &holder) == OMENDB_OK) ==
                       (expected[id] != UPDATES_GONE) &&
                   holder == id;
        if (!good)
            fprintf(stderr, "record %llu: %d instead of %d\n", (unsigned long long)id,
                    updates_read(txn, id), expected[id]);
    }
    return good && updates_range_agrees(txn, expected, 0, 100) &&
           updates_range_agrees(txn, expected, 300, 340) &&
           updates_range_agrees(txn, expected, 1000, 100000);
}

static int updates_all_agree(void)
{
    int good = updates_agree(NULL, updates.now);
    for (size_t i = 0; i < UPDATES_SNAPSHOTS && good; i++)
        good = updates.snapshots[i] == NULL || updates_agree(updates.snapshots[i], updates.then[i]);
    return good;
}

TEST(a_filter_finds_new_fields_and_never_old_ones_wherever_the_record_is)
{
    CHECK_EQ_INT(updates_begin("updates-where"), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, UPDATES_MANY), OMENDB_OK);
    for (int round = 0; round < 6; round++) {
        for (uint64_t id = (uint64_t)round; id < UPDATES_MANY; id += 7) {
            updates.now[id] = 1000 * (round + 1) + (int)id;
            CHECK_EQ_INT(updates_update(NULL, id, updates.now[id]), OMENDB_OK);
        }
        CHECK(updates_all_agree());
        if (round == 1 || round == 2)
            CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
        if (round == 3)
            CHECK_EQ_INT(updates_reopen(), OMENDB_OK);
        if (round == 4)
            CHECK_EQ_INT(omendb_optimize(updates.db, NULL, NULL), OMENDB_OK);
        CHECK(updates_all_agree());
        CHECK_EQ_INT(support_check(updates.db), OMENDB_OK);
    }
    CHECK_EQ_INT(updates_reopen(), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

static void updates_step(struct support_random *random, int step)
{
    const uint64_t id = support_below(random, UPDATES_MANY), kind = support_below(random, 100);
    const size_t place = (size_t)support_below(random, UPDATES_SNAPSHOTS);
    const int exists = updates.now[id] != UPDATES_GONE;
    if (kind < 60) {
        CHECK_EQ_INT(updates_update(NULL, id, 1000 + step), exists ? OMENDB_OK : OMENDB_NOTFOUND);
        updates.now[id] = exists ? 1000 + step : UPDATES_GONE;
    } else if (kind < 75) {
        CHECK_EQ_INT(updates_put(NULL, id, step % 400), OMENDB_OK);
        updates.now[id] = step % 400;
    } else if (kind < 82) {
        CHECK_EQ_INT(omendb_delete(updates.docs, NULL, id), exists ? OMENDB_OK : OMENDB_NOTFOUND);
        updates.now[id] = UPDATES_GONE;
    } else if (kind < 88) {
        CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    } else if (kind < 90) {
        CHECK_EQ_INT(omendb_optimize(updates.db, NULL, NULL), OMENDB_OK);
    } else if (updates.snapshots[place] != NULL) {
        omendb_txn_rollback(updates.snapshots[place]);
        updates.snapshots[place] = NULL;
    } else {
        CHECK_EQ_INT(omendb_txn_begin(updates.db, OMENDB_READ_ONLY, &updates.snapshots[place]),
                     OMENDB_OK);
        memcpy(updates.then[place], updates.now, sizeof updates.now);
    }
}

TEST(snapshots_see_the_fields_of_their_time_over_checkpoints_and_merges)
{
    struct support_random random = {support_seed(17)};
    const int steps = (int)support_scaled(1500, 300);
    CHECK_EQ_INT(updates_begin("updates-snapshots"), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, UPDATES_MANY / 2), OMENDB_OK);
    for (int step = 0; step < steps; step++) {
        updates_step(&random, step);
        if (step % 30 == 29)
            CHECK(updates_all_agree());
    }
    CHECK(updates_all_agree());
    for (size_t i = 0; i < UPDATES_SNAPSHOTS; i++) {
        omendb_txn_rollback(updates.snapshots[i]);
        updates.snapshots[i] = NULL;
    }
    CHECK_EQ_INT(support_check(updates.db), OMENDB_OK);
    CHECK_EQ_INT(updates_reopen(), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

static uint64_t updates_log_bytes(void)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    return omendb_get_stats(updates.db, &stats) == OMENDB_OK ? stats.wal_bytes : 0;
}

TEST(an_update_leaves_rows_and_graph_as_they_are_and_logs_no_vector)
{
    omendb_collection_stats before = OMENDB_COLLECTION_STATS_INIT,
                            after = OMENDB_COLLECTION_STATS_INIT;
    static float vector[2048];
    omendb_collection *wide = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = 2048;
    CHECK_EQ_INT(updates_begin("updates-log"), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(updates.db, "wide", &schema, &wide), OMENDB_OK);
    for (uint64_t id = 0; id < 20; id++) {
        omendb_record record = OMENDB_RECORD_INIT;
        vector[0] = (float)id + 1.0f;
        record.id = id;
        record.vector = vector;
        CHECK_EQ_INT(omendb_add(wide, NULL, &record, NULL), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_optimize(updates.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_get_stats(wide, &before), OMENDB_OK);
    const uint64_t log = updates_log_bytes();
    for (uint64_t id = 0; id < 20; id++)
        CHECK_EQ_INT(omendb_update(wide, NULL, id, "{\"n\":1}"), OMENDB_OK);
    CHECK(updates_log_bytes() > log);
    CHECK(updates_log_bytes() - log < 20 * 256);
    CHECK_EQ_INT(omendb_collection_get_stats(wide, &after), OMENDB_OK);
    CHECK_EQ_INT(after.rows, before.rows);
    CHECK_EQ_INT(after.unindexed_rows, before.unindexed_rows);
    CHECK_EQ_INT(after.memtable_rows, 0);
    omendb_collection_close(wide);
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

TEST(an_update_that_changes_nothing_writes_nothing)
{
    CHECK_EQ_INT(updates_begin("updates-nothing"), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, 3), OMENDB_OK);
    const uint64_t log = updates_log_bytes();
    CHECK_EQ_INT(omendb_update(updates.docs, NULL, 1, "{\"n\":1}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(updates.docs, NULL, 2, "{\"absent\":null}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(updates.docs, NULL, 3, "{}"), OMENDB_NOTFOUND);
    CHECK_EQ_INT(updates_log_bytes(), log);
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

TEST(of_two_transactions_that_change_one_record_the_first_to_commit_wins)
{
    CHECK_EQ_INT(updates_begin("updates-conflict"), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, 50), OMENDB_OK);
    for (int round = 0; round < 6; round++) {
        omendb_txn *txn = NULL;
        CHECK_EQ_INT(omendb_txn_begin(updates.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
        CHECK_EQ_INT(updates_update(NULL, 5, 500 + round), OMENDB_OK);
        updates.now[5] = 500 + round;
        if (round % 3 == 0)
            CHECK_EQ_INT(updates_update(txn, 5, 7), OMENDB_OK);
        else if (round % 3 == 1)
            CHECK_EQ_INT(updates_put(txn, 5, 7), OMENDB_OK);
        else
            CHECK_EQ_INT(omendb_delete(updates.docs, txn, 5), OMENDB_OK);
        if (round >= 3)
            CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
        if (round == 5)
            CHECK_EQ_INT(omendb_optimize(updates.db, NULL, NULL), OMENDB_OK);
        CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_CONFLICT);
        CHECK(updates_all_agree());
    }
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

TEST(a_transaction_reads_its_own_updates_also_of_what_it_put)
{
    omendb_txn *txn = NULL;
    int own[UPDATES_MANY];
    CHECK_EQ_INT(updates_begin("updates-own"), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, 50), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    memcpy(own, updates.now, sizeof own);
    CHECK_EQ_INT(omendb_txn_begin(updates.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(updates_update(txn, 1, own[1] = 1001), OMENDB_OK);
    CHECK_EQ_INT(updates_update(txn, 1, own[1] = 1011), OMENDB_OK);
    CHECK_EQ_INT(updates_put(txn, 60, 60), OMENDB_OK);
    CHECK_EQ_INT(updates_update(txn, 60, own[60] = 1060), OMENDB_OK);
    CHECK_EQ_INT(updates_update(txn, 2, 1002), OMENDB_OK);
    CHECK_EQ_INT(updates_put(txn, 2, own[2] = 310), OMENDB_OK);
    CHECK_EQ_INT(updates_update(txn, 3, 1003), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(updates.docs, txn, 3), OMENDB_OK);
    own[3] = UPDATES_GONE;
    CHECK_EQ_INT(updates_update(txn, 3, 1), OMENDB_NOTFOUND);
    CHECK(updates_agree(txn, own));
    CHECK(updates_agree(NULL, updates.now));
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK(updates_agree(NULL, own));
    CHECK_EQ_INT(updates_reopen(), OMENDB_OK);
    CHECK(updates_agree(NULL, own));
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

TEST(a_prepared_update_comes_with_its_commit_over_reopening)
{
    omendb_txn *txn = NULL;
    CHECK_EQ_INT(updates_begin("updates-prepared"), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, 50), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(updates.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(updates_update(txn, 11, 1011), OMENDB_OK);
    CHECK_EQ_INT(updates_update(txn, 12, 1012), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "both"), OMENDB_OK);
    CHECK_EQ_INT(updates_update(NULL, 11, 5), OMENDB_BUSY);
    CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_reopen(), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_update(NULL, 12, 5), OMENDB_BUSY);
    CHECK_EQ_INT(omendb_commit_prepared(updates.db, "both"), OMENDB_OK);
    updates.now[11] = 1011;
    updates.now[12] = 1012;
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_reopen(), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

/* ---- threads */

#define UPDATES_THREADS 3
#define UPDATES_EACH    200

static void *updates_count_up(void *context)
{
    const size_t thread = *(const size_t *)context;
    int failed = 0;
    for (int i = 1; i <= UPDATES_EACH; i++) {
        char json[64];
        snprintf(json, sizeof json, "{\"of%zu\":%d}", thread, i);
        int status = omendb_update(updates.docs, NULL, 7, json);
        failed += status != OMENDB_OK;
        failed += updates_update(NULL, 20 + thread, i) != OMENDB_OK;
    }
    return failed == 0 ? context : NULL;
}

static int updates_run_threads(void)
{
    pthread_t threads[UPDATES_THREADS];
    size_t numbers[UPDATES_THREADS];
    int good = 1;
    for (size_t i = 0; i < UPDATES_THREADS; i++) {
        numbers[i] = i;
        good &= pthread_create(&threads[i], NULL, updates_count_up, &numbers[i]) == 0;
    }
    for (int i = 0; i < 5; i++)
        good &= omendb_optimize(updates.db, NULL, NULL) == OMENDB_OK;
    for (size_t i = 0; i < UPDATES_THREADS; i++) {
        void *result = NULL;
        pthread_join(threads[i], &result);
        good &= result != NULL;
    }
    return good;
}

TEST(updates_of_one_record_by_several_threads_during_merges_are_all_kept)
{
    char json[256];
    CHECK_EQ_INT(updates_begin("updates-threads"), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, UPDATES_MANY), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    CHECK(updates_run_threads());
    for (size_t i = 0; i < UPDATES_THREADS; i++)
        updates.now[20 + i] = UPDATES_EACH;
    for (int round = 0; round < 2; round++) {
        CHECK(updates_all_agree());
        CHECK_EQ_INT(omendb_get_metadata(updates.docs, NULL, 7, NULL, 0, json, sizeof json, NULL),
                     OMENDB_OK);
        CHECK_EQ_STR(json, "{\"n\":7,\"of0\":200,\"of1\":200,\"of2\":200,\"text\":\"put 7\"}");
        CHECK_EQ_INT(support_check(updates.db), OMENDB_OK);
        CHECK_EQ_INT(updates_reopen(), OMENDB_OK);
    }
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

/* ---- what they cost */

TEST(a_segment_of_which_an_eighth_was_updated_is_merged_and_one_with_fewer_is_not)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    CHECK_EQ_INT(updates_begin("updates-policy"), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, UPDATES_MANY), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(updates.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(updates.db, &stats), OMENDB_OK);
    const uint64_t merges = stats.merges;
    for (uint64_t id = 0; id < 60; id++) {
        updates.now[id] = 2000 + (int)id;
        CHECK_EQ_INT(updates_update(NULL, id, updates.now[id]), OMENDB_OK);
        if (id != 30 && id != 59)
            continue;
        CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
        CHECK(omendb_work(updates.db, 10000000, NULL) == OMENDB_OK);
        CHECK_EQ_INT(omendb_get_stats(updates.db, &stats), OMENDB_OK);
        CHECK_EQ_INT(stats.merges, merges + (id == 59));
        CHECK(updates_all_agree());
    }
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

TEST(a_checkpoint_gives_back_what_updates_took_of_the_memory_limit)
{
    static char patch[20100];
    CHECK_EQ_INT(updates_begin("updates-memory"), OMENDB_OK);
    CHECK_EQ_INT(updates_close(), OMENDB_OK);
    updates.options.memory_limit = UINT64_C(16) << 20;
    CHECK_EQ_INT(updates_open(), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, UPDATES_MANY), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(updates.db, NULL, NULL), OMENDB_OK);
    for (int i = 0; i < 3000; i++) {
        memset(patch, 'x', sizeof patch);
        const int at = snprintf(patch, sizeof patch, "{\"n\":%d,\"long\":\"%d", 3000 + i, i);
        patch[at] = 'x';
        memcpy(patch + sizeof patch - 3, "\"}", 3);
        CHECK_EQ_INT(omendb_update(updates.docs, NULL, (uint64_t)i % 40, patch), OMENDB_OK);
        updates.now[i % 40] = 3000 + i;
    }
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

/* Whether a file of the database has the text. */
static int updates_files_have(const char *text)
{
    const size_t length = strlen(text);
    DIR *directory = opendir(updates.path);
    int has = 0;
    for (struct dirent *entry = NULL;
         directory != NULL && (entry = readdir(directory)) != NULL && !has;) {
        static char bytes[1 << 20];
        char path[8192];
        snprintf(path, sizeof path, "%s/%s", updates.path, entry->d_name);
        FILE *file = fopen(path, "rb");
        const size_t size = file == NULL ? 0 : fread(bytes, 1, sizeof bytes, file);
        for (size_t i = 0; i + length <= size && !has; i++)
            has = memcmp(bytes + i, text, length) == 0;
        if (file != NULL)
            fclose(file);
    }
    if (directory != NULL)
        closedir(directory);
    return has;
}

TEST(purge_leaves_no_byte_of_fields_that_were_replaced)
{
    omendb_txn *snapshot = NULL;
    omendb_collection *other = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    float vector[UPDATES_DIM] = {1.0f};
    omendb_record record = OMENDB_RECORD_INIT;
    schema.dim = UPDATES_DIM;
    record.vector = vector;
    record.id = 1;
    record.metadata = "{\"secret\":\"first name\"}";
    CHECK_EQ_INT(updates_begin("updates-purge"), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(updates.db, "other", &schema, &other), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, 100), OMENDB_OK);
    CHECK_EQ_INT(omendb_put(other, NULL, &record, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(updates.docs, NULL, 5, "{\"a\":\"public name\"}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(other, NULL, 1, "{\"secret\":\"second name\"}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(updates.db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(other, NULL, 1, "{\"secret\":\"third name\"}"), OMENDB_OK);
    CHECK(updates_files_have("first name") && updates_files_have("second name"));
    CHECK_EQ_INT(omendb_purge(updates.db, "other"), OMENDB_BUSY);
    omendb_txn_rollback(snapshot);
    CHECK_EQ_INT(omendb_purge(updates.db, "other"), OMENDB_OK);
    CHECK(!updates_files_have("first name") && !updates_files_have("second name"));
    CHECK(updates_files_have("third name") && updates_files_have("public name"));
    omendb_collection_close(other);
    CHECK_EQ_INT(updates_reopen(), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

TEST(salvage_saves_the_newest_fields_from_overlays_and_from_the_log)
{
    omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
    char saved[4400];
    CHECK_EQ_INT(updates_begin("updates-salvage"), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, 100), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    for (uint64_t id = 0; id < 100; id += 9) {
        updates.now[id] = 4000 + (int)id;
        CHECK_EQ_INT(updates_update(NULL, id, updates.now[id]), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    for (uint64_t id = 0; id < 100; id += 18) {
        updates.now[id] = 5000 + (int)id;
        CHECK_EQ_INT(updates_update(NULL, id, updates.now[id]), OMENDB_OK);
    }
    CHECK_EQ_INT(updates_close(), OMENDB_OK);
    snprintf(saved, sizeof saved, "%s-saved", updates.path);
    CHECK_EQ_INT(omendb_salvage(updates.path, saved, NULL, NULL, NULL, &result), OMENDB_OK);
    CHECK_EQ_INT(result.problems, 0);
    support_remove(updates.path);
    snprintf(updates.path, sizeof updates.path, "%.4000s", saved);
    CHECK_EQ_INT(updates_open(), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * updates while a merge runs, and a checkpoint within it */

/* One that is at or below the checkpoint and one above it of the same record, and of others in
 * another order than that of their rows. */
static int updates_amid_merge(void *context, uint64_t done, uint64_t total)
{
    static const struct {
        uint64_t id;
        int n;
    } before[] = {{2, 1021}, {12, 1121}}, after[] = {{2, 1022}, {3, 1031}};
    int *status = context;
    (void)done;
    (void)total;
    if (*status != -1)
        return 0;
    *status = OMENDB_OK;
    for (size_t i = 0; i < 2 && *status == OMENDB_OK; i++) {
        *status = updates_update(NULL, before[i].id, before[i].n);
        updates.now[before[i].id] = before[i].n;
    }
    if (*status == OMENDB_OK) /* of another size than the one that takes its place */
        *status = omendb_update(updates.docs, NULL, 2, "{\"text\":\"a longer one than before\"}");
    if (*status == OMENDB_OK)
        *status = omendb_checkpoint(updates.db);
    for (size_t i = 0; i < 2 && *status == OMENDB_OK; i++) {
        *status = updates_update(NULL, after[i].id, after[i].n);
        updates.now[after[i].id] = after[i].n;
    }
    if (*status == OMENDB_OK)
        *status = omendb_update(updates.docs, NULL, 2, "{\"text\":\"\"}");
    return 0;
}

static int updates_merge_with_checkpoint(void)
{
    int status = updates_fill(0, 10), amid = -1;
    if (status == OMENDB_OK)
        status = omendb_checkpoint(updates.db);
    if (status == OMENDB_OK)
        status = updates_fill(10, 20);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(updates.db);
    if (status == OMENDB_OK)
        status = omendb_optimize(updates.db, updates_amid_merge, &amid);
    return status == OMENDB_OK ? amid : status;
}

TEST(updates_around_a_checkpoint_within_a_merge_are_all_kept)
{
    CHECK_EQ_INT(updates_begin("within"), OMENDB_OK);
    CHECK_EQ_INT(updates_merge_with_checkpoint(), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    CHECK_EQ_INT(updates_reopen(), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(support_check(updates.db), OMENDB_OK);
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

TEST(updates_around_a_checkpoint_within_a_merge_outlive_the_process)
{
    CHECK_EQ_INT(updates_begin("killed"), OMENDB_OK);
    CHECK_EQ_INT(updates_close(), OMENDB_OK);
    const pid_t child = fork();
    if (child == 0)
        _exit(updates_open() != OMENDB_OK || updates_merge_with_checkpoint() != OMENDB_OK);
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    for (int id = 0; id < 20; id++)
        updates.now[id] = id;
    updates.now[2] = 1022;
    updates.now[3] = 1031;
    updates.now[12] = 1121;
    CHECK_EQ_INT(updates_open(), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(support_check(updates.db), OMENDB_OK); /* also what is counted as used */
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

/* A merge takes them over in the order of rows, which is not that of commits. */
TEST(an_update_that_a_merge_takes_over_before_an_older_one_reaches_the_next_checkpoint)
{
    omendb_txn *snapshot = NULL;
    CHECK_EQ_INT(updates_begin("order"), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, 10), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(updates.db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    CHECK_EQ_INT(updates_update(NULL, 5, 1005), OMENDB_OK);
    updates.now[5] = 1005;
    CHECK_EQ_INT(updates_fill(10, 20), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    CHECK_EQ_INT(updates_update(NULL, 2, 1002), OMENDB_OK);
    updates.now[2] = 1002;
    for (int i = 0; i < 20; i++)
        CHECK_EQ_INT(omendb_work(updates.db, UINT64_MAX, NULL), OMENDB_OK);
    omendb_txn_rollback(snapshot);
    CHECK_EQ_INT(omendb_checkpoint(updates.db), OMENDB_OK);
    CHECK_EQ_INT(updates_reopen(), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

TEST(updates_alone_keep_the_log_within_its_limit)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    CHECK_EQ_INT(updates_begin("bounded"), OMENDB_OK);
    CHECK_EQ_INT(updates_close(), OMENDB_OK);
    updates.options.wal_limit = 256 * 1024;
    CHECK_EQ_INT(updates_open(), OMENDB_OK);
    CHECK_EQ_INT(updates_fill(0, 100), OMENDB_OK);
    for (int i = 0; i < 10000; i++) {
        CHECK_EQ_INT(updates_update(NULL, (uint64_t)(i % 100), i), OMENDB_OK);
        updates.now[i % 100] = i;
    }
    CHECK_EQ_INT(omendb_get_stats(updates.db, &stats), OMENDB_OK);
    CHECK(stats.wal_bytes < 2 * updates.options.wal_limit);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * what only snapshots read */

#define UPDATES_LONG 30 /* updated with long texts: fewer than a merge would be made for */

static int updates_put_long(uint64_t first, uint64_t last, int n, size_t length)
{
    char json[1200];
    int status = OMENDB_OK;
    memset(json, 'x', sizeof json);
    snprintf(json, 32, "{\"n\":%10d,\"text\":\"", n);
    json[strlen(json)] = 'x';
    snprintf(json + length, 3, "\"}");
    for (uint64_t id = first; id < last && status == OMENDB_OK; id++) {
        status = omendb_update(updates.docs, NULL, id, json);
        updates.now[id] = n;
    }
    return status;
}

static uint64_t updates_bytes(void)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    if (omendb_work(updates.db, UINT64_MAX, NULL) != OMENDB_OK ||
        omendb_get_stats(updates.db, &stats) != OMENDB_OK)
        return 0;
    return stats.memory_bytes;
}

/* Updates the same records and makes a checkpoint UPDATES_SNAPSHOTS times, each time after a
 * snapshot was opened, if asked for. */
static int updates_write_long(int snapshots)
{
    int status = updates_fill(0, UPDATES_MANY);
    if (status == OMENDB_OK)
        status = updates_put_long(0, UPDATES_MANY, 1, 500);
    if (status == OMENDB_OK)
        status = omendb_optimize(updates.db, NULL, NULL);
    for (int i = 0; i < UPDATES_SNAPSHOTS && status == OMENDB_OK; i++) {
        memcpy(updates.then[i], updates.now, sizeof updates.now);
        if (snapshots)
            status = omendb_txn_begin(updates.db, OMENDB_READ_ONLY, &updates.snapshots[i]);
        if (status == OMENDB_OK)
            status = updates_put_long(0, UPDATES_LONG, 10 + i, 1000);
        if (status == OMENDB_OK)
            status = omendb_checkpoint(updates.db);
    }
    return status;
}

/* The one in the middle, the oldest, and the last one; nothing is written meanwhile. */
TEST(documents_that_only_snapshots_see_go_when_these_end)
{
    static const int order[UPDATES_SNAPSHOTS] = {1, 0, 2};
    CHECK_EQ_INT(updates_begin("updates-without-snapshots"), OMENDB_OK);
    CHECK_EQ_INT(updates_write_long(0), OMENDB_OK);
    CHECK(updates_all_agree()); /* what searches work with stays allocated */
    const uint64_t least = updates_bytes();
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
    CHECK_EQ_INT(updates_begin("updates-with-snapshots"), OMENDB_OK);
    CHECK_EQ_INT(updates_write_long(1), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK(updates_bytes() > least + UPDATES_SNAPSHOTS * UPDATES_LONG * 1000);
    for (int i = 0; i < UPDATES_SNAPSHOTS; i++) {
        CHECK(updates_all_agree());
        omendb_txn_rollback(updates.snapshots[order[i]]);
        updates.snapshots[order[i]] = NULL;
        /* That the one in the middle has ended is seen when the oldest does. */
        const uint64_t left = i == 0 ? UPDATES_SNAPSHOTS : i == 1 ? 1 : 0;
        CHECK(updates_bytes() < least + left * 50000 + 4096);
    }
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_reopen(), OMENDB_OK);
    CHECK(updates_all_agree());
    CHECK_EQ_INT(updates_end(), OMENDB_OK);
}

TEST_MAIN(a_filter_finds_new_fields_and_never_old_ones_wherever_the_record_is,
          snapshots_see_the_fields_of_their_time_over_checkpoints_and_merges,
          an_update_leaves_rows_and_graph_as_they_are_and_logs_no_vector,
          an_update_that_changes_nothing_writes_nothing,
          of_two_transactions_that_change_one_record_the_first_to_commit_wins,
          a_transaction_reads_its_own_updates_also_of_what_it_put,
          a_prepared_update_comes_with_its_commit_over_reopening,
          updates_of_one_record_by_several_threads_during_merges_are_all_kept,
          a_segment_of_which_an_eighth_was_updated_is_merged_and_one_with_fewer_is_not,
          a_checkpoint_gives_back_what_updates_took_of_the_memory_limit,
          purge_leaves_no_byte_of_fields_that_were_replaced,
          salvage_saves_the_newest_fields_from_overlays_and_from_the_log,
          updates_around_a_checkpoint_within_a_merge_are_all_kept,
          updates_around_a_checkpoint_within_a_merge_outlive_the_process,
          an_update_that_a_merge_takes_over_before_an_older_one_reaches_the_next_checkpoint,
          updates_alone_keep_the_log_within_its_limit,
          documents_that_only_snapshots_see_go_when_these_end)
