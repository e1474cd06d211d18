/* fault_io.c: every call of the file system fails, one after the other, in every scenario.
 *
 * For k = 1, 2, ... the k-th call fails with EIO, once or from then on, or the k-th call that needs
 * space fails with ENOSPC (a failing write is short: half of it is there). Then must hold:
 * - the call returns a code that says so, and not, for instance, that the file was damaged or
 * absent;
 * - the handle still answers, if only with errors, takes another record unless it is poisoned, and
 * closes;
 * - the database, reopened, holds all that was acknowledged and nothing that was refused, and check
 * finds nothing;
 * - so it does after the power goes at that moment and what no sync had confirmed is lost: the
 * writes before a failed sync are gone for good there, whatever later syncs said.
 *
 * Argument: a part of the scenarios' names. */
#define _POSIX_C_SOURCE 200809L

#include "fault_scenarios.h"
#include "test.h"

struct io_fault {
    const char *name;
    int kinds, forever, code, reason;
};

static const struct io_fault io_faults[] = {
    {"EIO once", CRASH_CALL_ALL, 0, OMENDB_IOERR, EIO},
    {"EIO from then on", CRASH_CALL_ALL, 1, OMENDB_IOERR, EIO},
    {"ENOSPC once", CRASH_CALL_WRITE | CRASH_CALL_SPACE, 0, OMENDB_FULL, ENOSPC},
    {"ENOSPC from then on", CRASH_CALL_WRITE | CRASH_CALL_SPACE, 1, OMENDB_FULL, ENOSPC}};

static const struct io_fault *io_fault; /* of the run */
static uint64_t io_at;
static const char *io_filter;
static uint64_t io_runs;
static const char *io_call;

static void io_arm(struct fault_run *run)
{
    run->fs->recording = 1;
    crash_faults_begin(run->fs, io_fault->kinds, io_at, io_fault->forever, io_fault->code,
                       io_fault->reason);
}

static int io_code_is_right(int status)
{
    return status == OMENDB_OK || status == io_fault->code || status == OMENDB_POISONED ||
           (io_fault->forever && status == OMENDB_BUSY);
}

static int io_complain(const struct fault_scenario *scenario, const char *what, int status)
{
    fprintf(stderr, "%s, %s at call %llu (%s): %s: %s (%s)\n", scenario->name, io_fault->name,
            (unsigned long long)io_at, io_call, what, omendb_strerror(status), omendb_errmsg());
    return 0;
}

/* Reopens this disk, compares, checks, puts one more. The disk is freed. */
static int io_reopen(const struct fault_scenario *scenario, const struct fault_run *run, int failed,
                     struct crash_fs *disk, const char *which)
{
    struct fault_run again = {.fs = disk};
    uint64_t digest = 0;
    int good = 1;
    int status = fault_open_path(&again, "/db", 0, &again.db);
    if (status != OMENDB_OK)
        good = io_complain(scenario, which, status);
    if (good && run->extra && (status = fault_extra_take(again.db)) != OMENDB_OK)
        good = io_complain(scenario, "the record that was put after the fault", status);
    if (good && (status = support_digest(again.db, NULL, &digest)) != OMENDB_OK)
        good = io_complain(scenario, which, status);
    if (good && !fault_state_is_legal(run, failed, digest)) {
        for (size_t i = 0; i < FAULT_STATES; i++)
            if (run->states[i] == digest)
                fprintf(stderr, "    it is state %zu\n", i);
        fprintf(stderr, "    run returned %s, %zu commits acknowledged, committing %d\n",
                omendb_strerror(failed), run->acknowledged, run->committing);
        good = io_complain(scenario, which, OMENDB_CORRUPT);
    }
    if (good && (status = support_check(again.db)) != OMENDB_OK)
        good = io_complain(scenario, "check after reopening", status);
    if (good && (status = omendb_collection_open(again.db, "docs", NULL, &again.docs)) != OMENDB_OK)
        good = io_complain(scenario, "collection after reopening", status);
    if (good && (status = support_put(again.docs, NULL, 12345, 1, FAULT_DOCS)) != OMENDB_OK)
        good = io_complain(scenario, "put after reopening", status);
    status = fault_close(&again);
    if (good && status != OMENDB_OK)
        good = io_complain(scenario, "close after reopening", status);
    crash_fs_destroy(disk);
    return good;
}

/* What is left when the power goes now and nothing unsynced arrived. */
static struct crash_fs *io_power_loss(const struct fault_run *run, const struct crash_fs *start)
{
    struct crash_replay replay;
    struct support_random random = {io_at};
    struct crash_fs *disk;
    crash_replay_begin(&replay, run->fs, start, NULL);
    while (replay.position < run->fs->event_count)
        crash_replay_step(&replay);
    disk = crash_image(&replay, CRASH_NOTHING, &random);
    crash_replay_end(&replay);
    return disk;
}

/* After the fault is over: what the open handle says, and whether it closes. */
static int io_afterwards(const struct fault_scenario *scenario, struct fault_run *run, int failed)
{
    uint64_t digest = 0;
    int status;
    if (run->db == NULL)
        return 1;
    status = support_digest(run->db, NULL, &digest);
    if (status == OMENDB_OK && !fault_state_is_legal(run, failed, digest))
        return io_complain(scenario, "the handle shows a state that is not legal", failed);
    if (status != OMENDB_OK && status != io_fault->code && status != OMENDB_POISONED)
        return io_complain(scenario, "reading after the fault", status);
    fault_extra_put(run);
    status = fault_close(run);
    if (status == OMENDB_BUSY)
        return io_complain(scenario, "close after the fault", status);
    return 1;
}

/* One run. *done: the fault lies past the last call. */
static int io_run(const struct fault_scenario *scenario, const struct crash_fs *start,
                  const struct fault_run *reference, uint32_t io, int *done)
{
    struct fault_run run = {.fs = crash_fs_copy(start), .io = io};
    int good = 1;
    memcpy(run.states, reference->states, sizeof run.states);
    run.fs->recording = 1;
    io_runs++;
    const int status = fault_play(&run, scenario, io_arm);
    *done = run.fs->faults.hits == 0;
    io_call = run.fs->faults.call;
    if (!io_code_is_right(status))
        good = io_complain(scenario, "code", status);
    if (good && status != OMENDB_OK && omendb_errmsg()[0] == '\0')
        good = io_complain(scenario, "no message", status);
    run.fs->faults.kinds = 0;
    const uint64_t commits = run.acknowledged;
    if (good)
        good = io_reopen(scenario, &run, status, io_power_loss(&run, start), "after a power loss");
    if (good)
        good = io_afterwards(scenario, &run, status);
    else
        fault_close(&run);
    if (good && commits == run.acknowledged)
        good = io_reopen(scenario, &run, status, crash_fs_copy(run.fs), "reopening");
    crash_fs_destroy(run.fs);
    return good;
}

static int io_scenario(const struct fault_scenario *scenario)
{
    struct crash_fs *start = fault_prepare(scenario->died);
    struct fault_run reference = {.reference = 1};
    int bad = 0;
    const uint64_t before = io_runs;
    const uint64_t step = support_scale() >= 1.0 ? 1 : (uint64_t)(1.0 / support_scale());
    io_at = 0;
    io_fault = &io_faults[0];
    reference.fs = crash_fs_copy(start);
    const int status = fault_play(&reference, scenario, io_arm);
    if (status != OMENDB_OK)
        bad += !io_complain(scenario, "without a fault", status);
    fault_close(&reference);
    for (size_t i = 0; i < 8 && bad == 0; i++) {
        int done = 0;
        io_fault = &io_faults[i / 2];
        for (io_at = 1; !done && bad < 3; io_at += step)
            bad += !io_run(scenario, start, &reference, i % 2 ? OMENDB_IO_MAP : OMENDB_IO_PREAD,
                           &done);
    }
    printf("  %-32s %6llu runs%s\n", scenario->name, (unsigned long long)(io_runs - before),
           bad ? "  FAILED" : "");
    fflush(stdout);
    crash_fs_destroy(reference.fs);
    crash_fs_destroy(start);
    return bad;
}

TEST(a_failing_file_system_loses_nothing)
{
    int bad = 0;
    for (size_t i = 0; i < FAULT_SCENARIOS; i++)
        if (io_filter == NULL || strstr(fault_scenarios[i].name, io_filter) != NULL)
            bad += io_scenario(&fault_scenarios[i]);
    CHECK_EQ_INT(bad, 0);
}

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {a_failing_file_system_loses_nothing};
    io_filter = argc > 1 ? argv[1] : NULL;
    return test_run(1, argv, all, 1, "a_failing_file_system_loses_nothing");
}
