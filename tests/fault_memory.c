/* fault_memory.c: every allocation fails, one after the other, in every scenario, once and from
 * then on.
 *
 * Then must hold: the call returns OMENDB_OK or OMENDB_NOMEM and nothing else; after NOMEM nothing
 * was done; the handle still answers and closes; every byte was given back, with the size it was
 * asked with; and the database, reopened with memory, holds all that was acknowledged.
 *
 * Argument: a part of the scenarios' names. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1

#include "fault_scenarios.h"
#include "test.h"

static uint64_t memory_at;
static int memory_forever;
static uint32_t memory_io;
static const char *memory_filter;

#define MEMORY_WAYS 4 /* once or from then on; mapped or read */
/* Once and mapped: with a limit, so that calls try again, and mostly succeed. */
#define MEMORY_LIMIT (UINT64_C(1) << 30)
#define MEMORY_MOST  400 /* runs of a shard, where not all are made */

static void memory_arm(struct fault_run *run)
{
    run->memory->calls = run->memory->hits = 0;
    run->memory->at = memory_at;
    run->memory->forever = memory_forever;
    run->memory->armed = 1;
}

static int memory_complain(const struct fault_scenario *scenario, const char *what, int status)
{
    fprintf(stderr, "%s, allocation %llu %s: %s: %s (%s)\n", scenario->name,
            (unsigned long long)memory_at, memory_forever ? "and all later ones" : "alone", what,
            omendb_strerror(status), omendb_errmsg());
    return 0;
}

static int memory_is_balanced(const struct fault_scenario *scenario, const struct fault_run *run)
{
    const int memory = fault_memory_is_balanced(run), handles = fault_vfs_is_balanced(run);
    return memory && handles ? 1
                             : memory_complain(scenario, "something was not given back", OMENDB_OK);
}

static int memory_reopen(const struct fault_scenario *scenario, const struct fault_run *run,
                         int failed)
{
    struct fault_run again = {.fs = crash_fs_copy(run->fs)};
    uint64_t digest = 0;
    int good = 1;
    int status = fault_open_path(&again, "/db", 0, &again.db);
    if (status == OMENDB_OK && run->extra)
        status = fault_extra_take(again.db);
    if (status == OMENDB_OK)
        status = support_digest(again.db, NULL, &digest);
    if (status != OMENDB_OK)
        good = memory_complain(scenario, "reopening", status);
    else if (!fault_state_is_legal(run, failed, digest))
        good = memory_complain(scenario, "reopening shows a state that is not legal", failed);
    if (good && memory_at % 4 == 1 && (status = support_check(again.db)) != OMENDB_OK)
        good = memory_complain(scenario, "check after reopening", status);
    status = fault_close(&again);
    if (good && status != OMENDB_OK)
        good = memory_complain(scenario, "close after reopening", status);
    crash_fs_destroy(again.fs);
    return good;
}

/* What the handle says and can do when there is memory again. */
static int memory_afterwards(const struct fault_scenario *scenario, struct fault_run *run,
                             int failed)
{
    uint64_t digest = 0;
    int status;
    if (run->db == NULL)
        return 1;
    status = support_digest(run->db, NULL, &digest);
    if (status != OMENDB_OK)
        return memory_complain(scenario, "reading afterwards", status);
    if (!fault_state_is_legal(run, failed, digest))
        return memory_complain(scenario, "the handle shows a state that is not legal", failed);
    if (run->again != NULL && (status = run->again(run->db, "moved")) != OMENDB_OK)
        return memory_complain(scenario, "the same step afterwards", status);
    run->acknowledged += run->again != NULL;
    fault_extra_put(run);
    if (run->docs != NULL && !run->extra)
        return memory_complain(scenario, "a put afterwards", OMENDB_NOMEM);
    status = fault_close(run);
    return status == OMENDB_OK ? 1 : memory_complain(scenario, "close afterwards", status);
}

static int memory_run(const struct fault_scenario *scenario, const struct crash_fs *start,
                      const struct fault_run *reference, int *done)
{
    struct fault_memory memory;
    struct fault_run run = {.fs = crash_fs_copy(start), .memory = &memory};
    int good = 1;
    fault_memory_init(&memory);
    memcpy(run.states, reference->states, sizeof run.states);
    run.fs->recording = 0;
    run.io = memory_io;
    run.memory_limit = reference->memory_limit;
    const int status = fault_play(&run, scenario, memory_arm);
    *done = memory.hits == 0;
    memory.armed = 0;
    if (status != OMENDB_OK && status != OMENDB_NOMEM)
        good = memory_complain(scenario, "code", status);
    if (good)
        good = memory_afterwards(scenario, &run, status);
    else
        fault_close(&run);
    if (good)
        good = memory_is_balanced(scenario, &run);
    if (good)
        good = memory_reopen(scenario, &run, status);
    crash_fs_destroy(run.fs);
    pthread_mutex_destroy(&memory.mutex);
    return good;
}

/* One scenario, once or from then on, mapped or read. */
static int memory_shard(uint64_t shard, void *result, const void *filter)
{
    const struct fault_scenario *scenario = &fault_scenarios[shard / MEMORY_WAYS];
    struct fault_memory memory;
    struct fault_run reference = {.reference = 1, .memory = &memory};
    uint64_t *runs = result;
    int bad = 0, done = 0;
    if (filter != NULL && strstr(scenario->name, filter) == NULL)
        return 0;
    struct crash_fs *start = fault_prepare(scenario->start);
    fault_memory_init(&memory);
    memory_forever = shard % MEMORY_WAYS >= 2;
    memory_io = shard % 2 ? OMENDB_IO_MAP : OMENDB_IO_PREAD;
    memory_at = 0;
    reference.io = memory_io;
    reference.memory_limit = memory_forever || memory_io != OMENDB_IO_MAP ? 0 : MEMORY_LIMIT;
    reference.fs = crash_fs_copy(start);
    const int status = fault_play(&reference, scenario, memory_arm);
    if (status != OMENDB_OK)
        bad += !memory_complain(scenario, "without a fault", status);
    const uint64_t step = fault_step(memory.calls, MEMORY_MOST);
    fault_close(&reference);
    for (memory_at = 1; !done && bad == 0; memory_at += step, ++*runs)
        bad += !memory_run(scenario, start, &reference, &done);
    crash_fs_destroy(reference.fs);
    crash_fs_destroy(start);
    pthread_mutex_destroy(&memory.mutex);
    return bad;
}

TEST(failing_allocations_lose_nothing_and_leak_nothing)
{
    CHECK_EQ_INT(fault_run_all(memory_filter, MEMORY_WAYS, memory_shard), 0);
}

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {failing_allocations_lose_nothing_and_leak_nothing};
    memory_filter = argc > 1 ? argv[1] : NULL;
    return test_run(1, argv, all, 1, "failing_allocations_lose_nothing_and_leak_nothing");
}
