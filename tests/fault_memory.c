/* fault_memory.c: every allocation fails, one after the other, in every scenario, once and from
 * then on.
 *
 * Then must hold: the call returns OMENDB_OK or OMENDB_NOMEM and nothing else; after NOMEM nothing
 * was done; the handle still answers and closes; every byte was given back, with the size it was
 * asked with; and the database, reopened with memory, holds all that was acknowledged.
 *
 * Argument: a part of the scenarios' names. */
#define _POSIX_C_SOURCE 200809L

#include "fault_scenarios.h"
#include "test.h"

static uint64_t memory_at;
static int memory_forever;
static uint32_t memory_io;
static const char *memory_filter;
static uint64_t memory_runs;

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
    if (run->memory->balance == 0 && run->memory->blocks == 0 && run->memory->wrong_sizes == 0)
        return 1;
    fprintf(stderr, "    %lld bytes in %lld blocks left, %d wrong sizes\n",
            (long long)run->memory->balance, (long long)run->memory->blocks,
            run->memory->wrong_sizes);
    return memory_complain(scenario, "memory was not given back", OMENDB_OK);
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
    memory_runs++;
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

static int memory_scenario(const struct fault_scenario *scenario)
{
    struct crash_fs *start = fault_prepare(scenario->died);
    struct fault_memory memory;
    struct fault_run reference = {.reference = 1, .memory = &memory};
    int bad = 0;
    const uint64_t before = memory_runs;
    const uint64_t step = support_scale() >= 1.0 ? 1 : (uint64_t)(1.0 / support_scale());
    fault_memory_init(&memory);
    memory_at = 0;
    reference.fs = crash_fs_copy(start);
    const int status = fault_play(&reference, scenario, memory_arm);
    if (status != OMENDB_OK)
        bad += !memory_complain(scenario, "without a fault", status);
    fault_close(&reference);
    for (int i = 0; i < 4 && bad == 0; i++) {
        int done = 0;
        memory_forever = i / 2;
        memory_io = i % 2 ? OMENDB_IO_MAP : OMENDB_IO_PREAD;
        for (memory_at = 1; !done && bad < 3; memory_at += step)
            bad += !memory_run(scenario, start, &reference, &done);
    }
    printf("  %-32s %6llu runs%s\n", scenario->name, (unsigned long long)(memory_runs - before),
           bad ? "  FAILED" : "");
    fflush(stdout);
    crash_fs_destroy(reference.fs);
    crash_fs_destroy(start);
    pthread_mutex_destroy(&memory.mutex);
    return bad;
}

TEST(failing_allocations_lose_nothing_and_leak_nothing)
{
    int bad = 0;
    for (size_t i = 0; i < FAULT_SCENARIOS; i++)
        if (memory_filter == NULL || strstr(fault_scenarios[i].name, memory_filter) != NULL)
            bad += memory_scenario(&fault_scenarios[i]);
    CHECK_EQ_INT(bad, 0);
}

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {failing_allocations_lose_nothing_and_leak_nothing};
    memory_filter = argc > 1 ? argv[1] : NULL;
    return test_run(1, argv, all, 1, "failing_allocations_lose_nothing_and_leak_nothing");
}
