/* fault_merges.c: files and memory fail while small segments are made and merged, at every place:
 * each call that reads, each mapping, and of the allocations the first of every size (a merge makes
 * thousands, of some dozens of kinds, and the size tells them apart).
 *
 * Then must hold: the call returns OMENDB_OK or the code of the fault; the records are what they
 * were, whatever came of the merge; the handle merges them when the fault is over; check finds
 * nothing; every byte, handle and mapping is given back.
 *
 * Argument: a part of the scenarios' names. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1

#include "fault_scenarios.h"
#include "test.h"

#define MERGES_DIM   32
#define MERGES_ROWS  1200 /* enough for a merge to compare its graph with the one before */
#define MERGES_SIZES 1024
#define MERGES_AGAIN 8 /* after one run in so many is merged once more */

/* ------------------------------------------------------------------------------------------------
 * memory, and which sizes are asked for */

struct merges_memory {
    struct fault_memory fault;
    int notes;
    int pairs; /* a size counts anew after another one than before: finer, and for few allocations
                */
    size_t count, before;
    struct {
        size_t size, before;
        uint64_t first; /* call */
    } sizes[MERGES_SIZES];
};

static void merges_note(struct merges_memory *memory, size_t size)
{
    size_t i = 0;
    if (!memory->notes || !memory->fault.armed)
        return;
    const size_t before = memory->pairs ? memory->before : 0;
    memory->before = size;
    while (i < memory->count &&
           (memory->sizes[i].size != size || memory->sizes[i].before != before))
        i++;
    if (i < memory->count || i == MERGES_SIZES)
        return;
    memory->sizes[memory->count].before = before;
    memory->sizes[memory->count].size = size;
    memory->sizes[memory->count++].first = memory->fault.calls + 1;
}

static void *merges_alloc(void *context, size_t size)
{
    struct merges_memory *memory = context;
    merges_note(memory, size);
    return fault_alloc(&memory->fault, size);
}

static void *merges_resize(void *context, void *block, size_t old_size, size_t new_size)
{
    struct merges_memory *memory = context;
    merges_note(memory, new_size);
    return fault_resize(&memory->fault, block, old_size, new_size);
}

static void merges_release(void *context, void *block, size_t size)
{
    fault_release(context, block, size);
}

/* ------------------------------------------------------------------------------------------------
 * disks to start from */

struct merges_scenario {
    const char *name;
    omendb_scalar scalar;
    omendb_metric metric;
    int relinks;   /* most of the rows have a graph, which is kept; otherwise most have none */
    int by_policy; /* by omendb_work, not by omendb_optimize */
    int seals;     /* it is a checkpoint: of linked rows in two memtables */
};

static const struct merges_scenario merges_scenarios[] = {
    {"relink floats", OMENDB_F32, OMENDB_L2, 1, 0, 0},
    {"relink floats by policy", OMENDB_F32, OMENDB_COSINE, 1, 1, 0},
    {"relink bytes", OMENDB_I8, OMENDB_L2, 1, 0, 0},
    {"relink bytes by policy", OMENDB_I8, OMENDB_L2, 1, 1, 0},
    {"relink bits", OMENDB_B1, OMENDB_HAMMING, 1, 0, 0},
    {"build floats", OMENDB_F32, OMENDB_L2, 0, 0, 0},
    {"build bytes by policy", OMENDB_I8, OMENDB_L2, 0, 1, 0},
    {"seal floats", OMENDB_F32, OMENDB_L2, 0, 0, 1},
    {"seal bytes", OMENDB_I8, OMENDB_L2, 0, 0, 1}};

#define MERGES_SCENARIOS (sizeof merges_scenarios / sizeof merges_scenarios[0])

static int merges_open(struct fault_run *run, struct merges_memory *memory)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_allocator allocator = {sizeof allocator, memory, merges_alloc, merges_resize,
                                  merges_release};
    options.vfs = &run->fs->vfs;
    options.threads = 0;
    options.io = run->io;
    options.sync = OMENDB_SYNC_OFF;
    options.tail_limit = UINT64_C(1) << 30; /* nothing is done before it is asked for */
    options.allocator = memory == NULL ? NULL : &allocator;
    const int status = omendb_open("/db", &options, &run->db);
    return status != OMENDB_OK ? status : omendb_collection_open(run->db, "docs", NULL, &run->docs);
}

static int merges_put(struct fault_run *run, uint64_t first, uint64_t count)
{
    static float vectors[MERGES_ROWS * MERGES_DIM];
    static uint64_t ids[MERGES_ROWS];
    for (uint64_t i = 0; i < count; i++) {
        struct support_random random = {first + i};
        ids[i] = first + i;
        for (uint64_t j = 0; j < MERGES_DIM; j++)
            vectors[i * MERGES_DIM + j] = (float)support_below(&random, 2);
    }
    return omendb_put_batch(run->docs, NULL, (size_t)count, ids, vectors, OMENDB_F32, NULL);
}

static struct crash_fs *merges_prepare(const struct merges_scenario *scenario)
{
    struct crash_fs *fs = crash_fs_create(0);
    struct fault_run run = {.fs = fs};
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    uint64_t ids[100];
    const uint64_t first = scenario->relinks ? MERGES_ROWS : MERGES_ROWS / 4;
    options.vfs = &fs->vfs;
    options.threads = 0;
    options.tail_limit = UINT64_C(1) << 30;
    schema.dim = MERGES_DIM;
    schema.scalar = scenario->scalar;
    schema.metric = scenario->metric;
    schema.M = 4;
    schema.ef_construction = 8;
    schema.ef = 10;
    support_must(omendb_open("/db", &options, &run.db));
    support_must(omendb_collection_create(run.db, "docs", &schema, &run.docs));
    if (scenario->seals) {
        support_must(fault_close(&run));
        return fs;
    }
    support_must(merges_put(&run, 0, first));
    support_must(omendb_optimize(run.db, NULL, NULL));
    for (uint64_t i = 0; i < 100; i++)
        ids[i] = i * 3;
    support_must(omendb_delete_batch(run.docs, NULL, 100, ids, NULL));
    support_must(merges_put(&run, 10000, scenario->relinks ? 150 : MERGES_ROWS));
    support_must(omendb_checkpoint(run.db));
    support_must(merges_put(&run, 20000, 150));
    support_must(omendb_checkpoint(run.db));
    support_must(fault_close(&run));
    return fs;
}

/* ------------------------------------------------------------------------------------------------
 * runs */

struct merges_fault {
    const char *name;
    int kinds; /* of calls of the file system; 0: of memory */
    uint32_t io;
    int code, reason;
};

static const struct merges_fault merges_faults[] = {
    {"no memory", 0, OMENDB_IO_PREAD, OMENDB_NOMEM, 0},
    {"EIO of reading", CRASH_CALL_READ, OMENDB_IO_PREAD, OMENDB_IOERR, EIO},
    {"no mapping", CRASH_CALL_MAP, OMENDB_IO_MAP, OMENDB_NOMEM, ENOMEM}};

#define MERGES_FAULTS (sizeof merges_faults / sizeof merges_faults[0])

static const char *merges_filter;

struct merges_run {
    const struct merges_scenario *scenario;
    const struct merges_fault *fault;
    uint64_t at, calls, hits; /* at 0: without a fault */
    uint64_t state;           /* digest of the records */
};

static int merges_complain(const struct merges_run *plan, const char *what, int status)
{
    fprintf(stderr, "%s, %s at call %llu: %s: %s (%s)\n", plan->scenario->name, plan->fault->name,
            (unsigned long long)plan->at, what, omendb_strerror(status), omendb_errmsg());
    return 0;
}

static int merges_work(struct fault_run *run)
{
    int more = 1, status = OMENDB_OK;
    for (int i = 0; i < 100 && more && status == OMENDB_OK; i++)
        status = omendb_work(run->db, 0, &more);
    return status;
}

/* Two memtables of linked rows, as the first checkpoint finds the disk full. */
static int merges_fill(struct fault_run *run)
{
    int status = merges_put(run, 0, 300);
    if (status == OMENDB_OK)
        status = merges_work(run);
    crash_faults_begin(run->fs, CRASH_CALL_WRITE, 2, 1, OMENDB_FULL, ENOSPC);
    if (status == OMENDB_OK && omendb_checkpoint(run->db) != OMENDB_FULL)
        status = OMENDB_MISUSE;
    run->fs->faults.kinds = 0;
    if (status == OMENDB_OK)
        status = merges_put(run, 200, 300);
    return status == OMENDB_OK ? merges_work(run) : status;
}

static int merges_act(struct fault_run *run, const struct merges_scenario *scenario)
{
    if (scenario->seals)
        return omendb_checkpoint(run->db);
    return scenario->by_policy ? merges_work(run) : omendb_optimize(run->db, NULL, NULL);
}

static int merges_digest(struct fault_run *run, uint64_t *digest)
{
    static float vector[MERGES_DIM];
    omendb_rows *rows = NULL;
    uint64_t id;
    *digest = 0;
    int status = omendb_scan(run->docs, NULL, 0, UINT64_MAX - 1, &rows);
    while (status == OMENDB_OK) {
        status = omendb_rows_next(rows, &id, OMENDB_F32, vector);
        if (status == OMENDB_OK)
            *digest += support_hash_record(1, id, vector, MERGES_DIM);
    }
    omendb_rows_close(rows);
    return status == OMENDB_DONE ? OMENDB_OK : status;
}

static void merges_arm(const struct merges_run *plan, struct fault_run *run,
                       struct merges_memory *memory)
{
    memory->fault.calls = memory->fault.hits = 0;
    memory->fault.at = plan->at;
    memory->fault.armed = plan->fault->kinds == 0;
    if (plan->fault->kinds != 0)
        crash_faults_begin(run->fs, plan->fault->kinds, plan->at, 0, plan->fault->code,
                           plan->fault->reason);
}

static void merges_disarm(struct merges_run *plan, struct fault_run *run,
                          struct merges_memory *memory)
{
    const int of_memory = plan->fault->kinds == 0;
    plan->calls = of_memory ? memory->fault.calls : run->fs->faults.calls;
    plan->hits = of_memory ? memory->fault.hits : run->fs->faults.hits;
    memory->fault.armed = 0;
    run->fs->faults.kinds = 0;
}

/* What the handle holds and does when the fault is over. */
static int merges_afterwards(const struct merges_run *plan, struct fault_run *run)
{
    uint64_t state = 0;
    int status = merges_digest(run, &state);
    if (status != OMENDB_OK || state != plan->state)
        return merges_complain(plan, "the records differ afterwards", status);
    if (plan->at % MERGES_AGAIN != 0)
        return 1;
    status = merges_act(run, plan->scenario);
    if (status == OMENDB_POISONED && plan->fault->code == OMENDB_IOERR)
        return 1; /* it was the manifest that could not be made */
    if (status != OMENDB_OK)
        return merges_complain(plan, "a merge afterwards", status);
    if ((status = merges_digest(run, &state)) != OMENDB_OK || state != plan->state)
        return merges_complain(plan, "the records differ after merging", status);
    status = support_check(run->db);
    return status == OMENDB_OK ? 1 : merges_complain(plan, "check afterwards", status);
}

static int merges_play(struct merges_run *plan, const struct crash_fs *start,
                       struct merges_memory *memory)
{
    struct fault_run run = {
        .fs = crash_fs_copy(start), .memory = &memory->fault, .io = plan->fault->io};
    int good = 1;
    fault_memory_init(&memory->fault);
    run.fs->recording = 0;
    int status = merges_open(&run, memory);
    if (status == OMENDB_OK && plan->scenario->seals)
        status = merges_fill(&run);
    if (status == OMENDB_OK && plan->at == 0)
        status = merges_digest(&run, &plan->state);
    if (status != OMENDB_OK)
        good = merges_complain(plan, "opening", status);
    merges_arm(plan, &run, memory);
    if (good)
        status = merges_act(&run, plan->scenario);
    merges_disarm(plan, &run, memory);
    if (good && status != OMENDB_OK && (plan->hits == 0 || status != plan->fault->code))
        good = merges_complain(plan, "code", status);
    if (good && status != OMENDB_OK && omendb_errmsg()[0] == '\0')
        good = merges_complain(plan, "no message", status);
    good = good && merges_afterwards(plan, &run);
    status = fault_close(&run);
    if (good && status != OMENDB_OK)
        good = merges_complain(plan, "close", status);
    if (good && (!fault_vfs_is_balanced(&run) || !fault_memory_is_balanced(&run)))
        good = merges_complain(plan, "something was not given back", OMENDB_OK);
    crash_fs_destroy(run.fs);
    pthread_mutex_destroy(&memory->fault.mutex);
    return good;
}

/* One scenario with one kind of fault; the result: the runs. */
static int merges_shard(uint64_t shard, void *result, const void *filter)
{
    static struct merges_memory memory;
    struct merges_run plan = {.scenario = &merges_scenarios[shard / MERGES_FAULTS],
                              .fault = &merges_faults[shard % MERGES_FAULTS]};
    const uint64_t step = support_scale() >= 1.0 ? 1 : (uint64_t)(1.0 / support_scale());
    uint64_t *runs = result;
    if (filter != NULL && strstr(plan.scenario->name, filter) == NULL)
        return 0;
    struct crash_fs *start = merges_prepare(plan.scenario);
    memory.notes = plan.fault->kinds == 0;
    memory.pairs = plan.scenario->seals;
    memory.count = memory.before = 0;
    int bad = !merges_play(&plan, start, &memory);
    memory.notes = 0;
    const uint64_t calls = plan.fault->kinds == 0 ? memory.count : plan.calls;
    for (uint64_t i = shard % step; i < calls && bad == 0; i += step, ++*runs) {
        plan.at = i + 1;
        if (plan.fault->kinds == 0)
            plan.at = memory.sizes[i].first;
        bad += !merges_play(&plan, start, &memory);
    }
    crash_fs_destroy(start);
    return bad;
}

TEST(a_merge_that_fails_anywhere_changes_no_record_and_can_be_repeated)
{
    const uint64_t shards = MERGES_SCENARIOS * MERGES_FAULTS;
    uint64_t *runs = parallel_memory(shards * sizeof *runs);
    const int bad = parallel_run(shards, 1, merges_shard, sizeof *runs, runs, merges_filter);
    for (size_t i = 0; i < shards; i++)
        if (runs[i] != 0)
            printf("  %-24s %-16s %4llu runs\n", merges_scenarios[i / MERGES_FAULTS].name,
                   merges_faults[i % MERGES_FAULTS].name, (unsigned long long)runs[i]);
    munmap(runs, shards * sizeof *runs);
    CHECK_EQ_INT(bad, 0);
}

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {
        a_merge_that_fails_anywhere_changes_no_record_and_can_be_repeated};
    merges_filter = argc > 1 ? argv[1] : NULL;
    return test_run(1, argv, all, 1,
                    "a_merge_that_fails_anywhere_changes_no_record_and_can_be_repeated");
}
