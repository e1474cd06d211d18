/* fault_answers.c: memory or files fail, at one call after the other, while a database of a few
 * thousand rows is searched in every way, read, measured, and merged.
 *
 * Then must hold: the call returns OMENDB_OK or the code of the fault; what it answers with
 * OMENDB_OK is what it answers without a fault; the handle answers as before when the fault is over
 * (a merge that failed changed nothing that can be seen), closes, and gives back every byte.
 *
 * Argument: a part of the scenarios' names. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1

#include <math.h>

#include "fault_scenarios.h"
#include "test.h"

#define ANSWERS_DIM     8
#define ANSWERS_ROWS    4600 /* enough for a merge to measure a curve */
#define ANSWERS_QUERIES 40
#define ANSWERS_HITS    12

static omendb_schema answers_schema(void)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = ANSWERS_DIM;
    schema.M = 4;
    schema.ef_construction = 16;
    return schema;
}

/* Without threads, and without limits that make work by themselves. */
static int answers_open(struct fault_run *run, int read_only)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_allocator allocator = {sizeof allocator, run->memory, fault_alloc, fault_resize,
                                  fault_release};
    options.vfs = &run->fs->vfs;
    options.threads = 0;
    options.io = run->io;
    options.sync = OMENDB_SYNC_OFF;
    options.read_only = (uint32_t)read_only;
    options.allocator = run->memory == NULL ? NULL : &allocator;
    int status = omendb_open("/db", &options, &run->db);
    if (status == OMENDB_OK)
        status = omendb_collection_open(run->db, "docs", NULL, &run->docs);
    return status;
}

static void answers_put(struct fault_run *run, uint64_t first, uint64_t count)
{
    for (uint64_t at = 0; at < count; at += 200)
        support_must(
            fault_put_many(run, run->docs, NULL, ANSWERS_DIM, first + at, 200, first + at));
}

/* `merged`: one segment with a graph and a curve, deleted rows, and a growing tail; otherwise two
 * segments, of which the larger has no graph yet. */
static struct crash_fs *answers_prepare(int merged)
{
    struct crash_fs *fs = crash_fs_create(0), *copy;
    struct fault_run run = {.fs = fs};
    const omendb_schema schema = answers_schema();
    omendb_collection *made = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    uint64_t ids[64];
    options.vfs = &fs->vfs;
    options.threads = 0;
    support_must(omendb_open("/db", &options, &run.db));
    support_must(omendb_collection_create(run.db, "docs", &schema, &made));
    run.docs = made;
    answers_put(&run, 0, 400);
    support_must(omendb_optimize(run.db, NULL, NULL));
    answers_put(&run, 400, ANSWERS_ROWS);
    if (merged)
        support_must(omendb_optimize(run.db, NULL, NULL));
    else
        support_must(omendb_checkpoint(run.db));
    for (uint64_t i = 0; i < 64; i++)
        ids[i] = i * 60;
    support_must(omendb_delete_batch(run.docs, NULL, 64, ids, NULL));
    answers_put(&run, 20000, 200);
    copy = crash_fs_copy(fs); /* as a death leaves it */
    support_must(fault_close(&run));
    crash_fs_destroy(fs);
    return copy;
}

/* ------------------------------------------------------------------------------------------------
 * what is asked; `answer` is a digest of all that came back */

static void answers_hash(uint64_t *answer, const void *data, size_t size)
{
    *answer = support_hash(data, size, *answer);
}

static int answers_one(struct fault_run *run, omendb_txn *txn, const omendb_query *query,
                       uint64_t *answer)
{
    uint64_t ids[ANSWERS_HITS];
    float distances[ANSWERS_HITS];
    size_t count = 0;
    const int status = omendb_search(run->docs, txn, query, ids, distances, &count);
    if (status == OMENDB_OK) {
        answers_hash(answer, ids, count * sizeof *ids);
        answers_hash(answer, distances, count * sizeof *distances);
    }
    return status;
}

static void answers_query(omendb_query *query, float *vector)
{
    static const omendb_query start = OMENDB_QUERY_INIT;
    *query = start;
    support_vector(77777, ANSWERS_DIM, vector);
    query->vector = vector;
    query->k = ANSWERS_HITS;
}

static int answers_act_search(struct fault_run *run, uint64_t *answer)
{
    float vector[ANSWERS_DIM];
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    omendb_query query;
    answers_query(&query, vector);
    query.explain = &explain;
    int status = answers_one(run, NULL, &query, answer);
    query.ef = 200;
    if (status == OMENDB_OK)
        status = answers_one(run, NULL, &query, answer);
    query.ef = 0;
    query.stretch = 1.2f;
    if (status == OMENDB_OK)
        status = answers_one(run, NULL, &query, answer);
    query.stretch = 0;
    query.exact = 1;
    query.use_radius = 1;
    query.radius = 90;
    if (status == OMENDB_OK)
        status = answers_one(run, NULL, &query, answer);
    query.exact = 0;
    if (status == OMENDB_OK)
        status = answers_one(run, NULL, &query, answer);
    return status;
}

static int answers_act_recall(struct fault_run *run, uint64_t *answer)
{
    float vector[ANSWERS_DIM];
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    omendb_query query;
    int status = OMENDB_OK;
    answers_query(&query, vector);
    query.explain = &explain;
    for (int i = 1; i <= 10 && status == OMENDB_OK; i++) {
        query.recall = (float)i / 10.0f;
        query.k = i % 2 == 0 ? 1 : ANSWERS_HITS;
        status = answers_one(run, NULL, &query, answer);
    }
    return status;
}

static int answers_act_batch(struct fault_run *run, uint64_t *answer)
{
    float vectors[ANSWERS_QUERIES * ANSWERS_DIM];
    float distances[ANSWERS_QUERIES * ANSWERS_HITS];
    uint64_t ids[ANSWERS_QUERIES * ANSWERS_HITS];
    size_t counts[ANSWERS_QUERIES];
    omendb_query query;
    answers_query(&query, vectors);
    for (uint64_t i = 0; i < ANSWERS_QUERIES; i++)
        support_vector(i + 60000, ANSWERS_DIM, vectors + i * ANSWERS_DIM);
    const int status = omendb_search_batch(run->docs, NULL, &query, vectors, ANSWERS_QUERIES, ids,
                                           distances, counts);
    if (status == OMENDB_OK) {
        answers_hash(answer, ids, sizeof ids);
        answers_hash(answer, distances, sizeof distances);
    }
    return status;
}

/* Its own writes lie over the rows of segments, of memtables, and beside them. */
static int answers_write_own(struct fault_run *run, omendb_txn *txn)
{
    const uint64_t gone[] = {7, 20003, 40001};
    int status = fault_put_many(run, run->docs, txn, ANSWERS_DIM, 10, 20, 91000);
    if (status == OMENDB_OK)
        status = fault_put_many(run, run->docs, txn, ANSWERS_DIM, 40000, 50, 92000);
    if (status == OMENDB_OK)
        status = omendb_delete_batch(run->docs, txn, 3, gone, NULL);
    return status;
}

static int answers_read(struct fault_run *run, omendb_txn *txn, uint64_t *answer)
{
    float vector[ANSWERS_DIM];
    uint64_t id = 0, count = 0;
    omendb_rows *rows = NULL;
    int status = omendb_count(run->docs, txn, &count);
    answers_hash(answer, &count, sizeof count);
    if (status == OMENDB_OK)
        status = omendb_get(run->docs, txn, 123, OMENDB_F32, vector);
    if (status == OMENDB_OK)
        status = omendb_scan(run->docs, txn, 5, 40020, &rows);
    while (status == OMENDB_OK) {
        status = omendb_rows_next(rows, &id, OMENDB_F32, vector);
        if (status == OMENDB_OK) {
            answers_hash(answer, &id, sizeof id);
            answers_hash(answer, vector, sizeof vector);
        }
    }
    omendb_rows_close(rows);
    return status == OMENDB_DONE ? OMENDB_OK : status;
}

static int answers_act_transaction(struct fault_run *run, uint64_t *answer)
{
    float vector[ANSWERS_DIM];
    omendb_query query;
    omendb_txn *txn = NULL;
    int status = omendb_txn_begin(run->db, OMENDB_READ_WRITE, &txn);
    answers_query(&query, vector);
    if (status == OMENDB_OK)
        status = answers_write_own(run, txn);
    if (status == OMENDB_OK)
        status = answers_one(run, txn, &query, answer);
    query.vector = NULL;
    query.id = 40002;
    if (status == OMENDB_OK)
        status = answers_one(run, txn, &query, answer);
    query.exact = 1;
    if (status == OMENDB_OK)
        status = answers_one(run, txn, &query, answer);
    if (status == OMENDB_OK)
        status = answers_read(run, txn, answer);
    omendb_txn_rollback(txn);
    return status;
}

static int answers_act_read(struct fault_run *run, uint64_t *answer)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    omendb_collection_stats own = OMENDB_COLLECTION_STATS_INIT;
    int status = answers_read(run, NULL, answer);
    if (status == OMENDB_OK)
        status = omendb_get_stats(run->db, &stats);
    if (status == OMENDB_OK)
        status = omendb_collection_get_stats(run->docs, &own);
    answers_hash(answer, &stats.records, sizeof stats.records);
    answers_hash(answer, &own.records, sizeof own.records);
    return status;
}

static int answers_act_check(struct fault_run *run, uint64_t *answer)
{
    uint64_t problems = 0;
    const int status = omendb_check(run->db, NULL, NULL, &problems);
    if (status == OMENDB_OK)
        answers_hash(answer, &problems, sizeof problems);
    return status;
}

static int answers_act_calibrate(struct fault_run *run, uint64_t *answer)
{
    float queries[64 * ANSWERS_DIM];
    (void)answer;
    for (uint64_t i = 0; i < 64; i++)
        support_vector(i + 30000, ANSWERS_DIM, queries + i * ANSWERS_DIM);
    return omendb_calibrate(run->docs, queries, 64, OMENDB_F32, NULL, NULL);
}

static int answers_act_merge(struct fault_run *run, uint64_t *answer)
{
    (void)answer;
    return omendb_optimize(run->db, NULL, NULL);
}

/* As above, in small steps that a program makes by itself. */
static int answers_act_work(struct fault_run *run, uint64_t *answer)
{
    (void)answer;
    return support_work(run->db);
}

struct answers_scenario {
    const char *name;
    int merged, changes;
    int opening_fails, read_only;
    uint64_t runs; /* at most so many faults at scale 1: what merges takes its time */
    int (*act)(struct fault_run *run, uint64_t *answer);
};

static const struct answers_scenario answers_scenarios[] = {
    {"search", 1, 0, 0, 0, 60, answers_act_search},
    {"search without a graph", 0, 0, 0, 0, 60, answers_act_search},
    {"search by recall", 1, 0, 0, 0, 60, answers_act_recall},
    {"search in batches", 1, 0, 0, 0, 60, answers_act_batch},
    {"search in a transaction", 1, 0, 0, 0, 120, answers_act_transaction},
    {"open read-only and search", 1, 0, 1, 1, 60, answers_act_search},
    {"read", 1, 0, 0, 0, 60, answers_act_read},
    {"open and read", 1, 0, 1, 0, 120, answers_act_read},
    {"check", 1, 0, 0, 0, 60, answers_act_check},
    {"calibrate", 1, 1, 0, 0, 20, answers_act_calibrate},
    {"merge", 0, 1, 0, 0, 20, answers_act_merge},
    {"merge again", 1, 1, 0, 0, 20, answers_act_merge},
    {"work", 0, 1, 0, 0, 10, answers_act_work}};

/* ------------------------------------------------------------------------------------------------
 * runs */

struct answers_fault {
    const char *name;
    int memory; /* otherwise a file */
    int forever;
    uint32_t io;
};

static const struct answers_fault answers_faults[] = {
    {"no memory once", 1, 0, OMENDB_IO_PREAD}, {"no memory from then on", 1, 1, OMENDB_IO_MAP},
    {"no memory once", 1, 0, OMENDB_IO_MAP},   {"EIO once", 0, 0, OMENDB_IO_PREAD},
    {"EIO once", 0, 0, OMENDB_IO_MAP},         {"EIO from then on", 0, 1, OMENDB_IO_PREAD}};

static const char *answers_filter;
static uint64_t answers_runs;

struct answers_run {
    const struct answers_scenario *scenario;
    const struct answers_fault *fault;
    uint64_t at, calls, hits;
    uint64_t expected; /* digest of the answers without a fault */
};

static void answers_arm(struct fault_run *run, const struct answers_run *plan)
{
    if (plan->fault->memory) {
        run->memory->calls = run->memory->hits = 0;
        run->memory->at = plan->at;
        run->memory->forever = plan->fault->forever;
        run->memory->armed = 1;
    } else {
        crash_faults_begin(run->fs, CRASH_CALL_ALL, plan->at, plan->fault->forever, OMENDB_IOERR,
                           EIO);
    }
}

static void answers_disarm(struct fault_run *run, struct answers_run *plan)
{
    plan->calls = plan->fault->memory ? run->memory->calls : run->fs->faults.calls;
    plan->hits = plan->fault->memory ? run->memory->hits : run->fs->faults.hits;
    run->memory->armed = 0;
    run->fs->faults.kinds = 0;
}

/* A reader that cannot sync the log shows what is known to be durable without it: an older state.
 */
static int answers_may_be_older(const struct answers_run *plan)
{
    return plan->scenario->read_only && !plan->fault->memory;
}

static int answers_complain(const struct answers_run *plan, const char *what, int status)
{
    fprintf(stderr, "%s, %s at call %llu: %s: %s (%s)\n", plan->scenario->name, plan->fault->name,
            (unsigned long long)plan->at, what, omendb_strerror(status), omendb_errmsg());
    return 0;
}

static int answers_code_is_right(const struct answers_run *plan, int status)
{
    const int code = plan->fault->memory ? OMENDB_NOMEM : OMENDB_IOERR;
    return status == OMENDB_OK ||
           (plan->hits != 0 &&
            (status == code || (status == OMENDB_POISONED && !plan->fault->memory)));
}

/* The fault is over. */
static int answers_afterwards(const struct answers_run *plan, struct fault_run *run, int failed)
{
    const int poisonous = !plan->fault->memory && plan->scenario->changes;
    uint64_t answer = 0;
    int status;
    if (run->db == NULL || run->docs == NULL || answers_may_be_older(plan))
        return 1;
    status = plan->scenario->changes ? OMENDB_OK : plan->scenario->act(run, &answer);
    if (status != OMENDB_OK || (!plan->scenario->changes && answer != plan->expected))
        return answers_complain(plan, "answers differ afterwards", status);
    uint64_t count = 0;
    status = omendb_count(run->docs, NULL, &count);
    if (status != OMENDB_OK || count != 400 + ANSWERS_ROWS + 200 - 64)
        return answers_complain(plan, "records are missing afterwards", status);
    if (failed == OMENDB_OK || poisonous || plan->scenario->read_only)
        return 1;
    status = support_put(run->docs, NULL, 54321, 1, ANSWERS_DIM);
    return status == OMENDB_OK ? 1 : answers_complain(plan, "a put afterwards", status);
}

static int answers_balance(const struct answers_run *plan, const struct fault_run *run)
{
    if (run->memory->balance == 0 && run->memory->blocks == 0 && run->memory->wrong_sizes == 0)
        return 1;
    fprintf(stderr, "    %lld bytes in %lld blocks left, %d wrong sizes\n",
            (long long)run->memory->balance, (long long)run->memory->blocks,
            run->memory->wrong_sizes);
    return answers_complain(plan, "memory was not given back", OMENDB_OK);
}

/* One run; at 0: without a fault, whose answers are the expected ones. */
static int answers_play(struct answers_run *plan, const struct crash_fs *start)
{
    struct fault_memory memory;
    struct fault_run run = {.fs = crash_fs_copy(start), .memory = &memory, .io = plan->fault->io};
    uint64_t answer = 0;
    int good = 1;
    fault_memory_init(&memory);
    run.fs->recording = 0;
    answers_runs++;
    if (plan->scenario->opening_fails)
        answers_arm(&run, plan);
    int status = answers_open(&run, plan->scenario->read_only);
    if (!plan->scenario->opening_fails)
        answers_arm(&run, plan);
    if (status == OMENDB_OK)
        status = plan->scenario->act(&run, &answer);
    answers_disarm(&run, plan);
    if (plan->at == 0)
        plan->expected = answer;
    if (!answers_code_is_right(plan, status))
        good = answers_complain(plan, "code", status);
    if (good && status != OMENDB_OK && omendb_errmsg()[0] == '\0')
        good = answers_complain(plan, "no message", status);
    if (good && status == OMENDB_OK && answer != plan->expected && !answers_may_be_older(plan))
        good = answers_complain(plan, "another answer", status);
    good = good && answers_afterwards(plan, &run, status);
    status = fault_close(&run);
    if (good && status == OMENDB_BUSY)
        good = answers_complain(plan, "close", status);
    good = good && answers_balance(plan, &run);
    crash_fs_destroy(run.fs);
    pthread_mutex_destroy(&memory.mutex);
    return good;
}

static int answers_scenario(const struct answers_scenario *scenario, const struct crash_fs *start)
{
    const uint64_t most = support_scaled(scenario->runs, 2), before = answers_runs;
    int bad = 0;
    for (size_t i = 0; i < sizeof answers_faults / sizeof answers_faults[0] && bad == 0; i++) {
        struct answers_run plan = {.scenario = scenario, .fault = &answers_faults[i]};
        bad += !answers_play(&plan, start);
        const uint64_t calls = plan.calls, step = calls / most + 1;
        for (plan.at = 1; plan.at <= calls && bad < 3; plan.at += step)
            bad += !answers_play(&plan, start);
    }
    printf("  %-36s %6llu runs%s\n", scenario->name, (unsigned long long)(answers_runs - before),
           bad ? "  FAILED" : "");
    fflush(stdout);
    return bad;
}

TEST(what_fails_gives_an_error_or_the_right_answer)
{
    struct crash_fs *const starts[] = {answers_prepare(0), answers_prepare(1)};
    int bad = 0;
    for (size_t i = 0; i < sizeof answers_scenarios / sizeof answers_scenarios[0]; i++)
        if (answers_filter == NULL || strstr(answers_scenarios[i].name, answers_filter) != NULL)
            bad += answers_scenario(&answers_scenarios[i], starts[answers_scenarios[i].merged]);
    crash_fs_destroy(starts[0]);
    crash_fs_destroy(starts[1]);
    CHECK_EQ_INT(bad, 0);
}

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {what_fails_gives_an_error_or_the_right_answer};
    answers_filter = argc > 1 ? argv[1] : NULL;
    return test_run(1, argv, all, 1, "what_fails_gives_an_error_or_the_right_answer");
}
