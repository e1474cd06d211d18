/* fault_io.c: every call of the file system fails, one after the other, in every scenario.
 *
 * For k = 1, 2, ... the k-th call fails with EIO, once or from then on; or the k-th call that needs
 * space with ENOSPC (a failing write is short: half of it is there); or the k-th opening with
 * EMFILE; or the k-th mapping with ENOMEM. Then must hold:
 * - the call returns a code that says so, and not, for instance, that the file was damaged or
 * absent;
 * - the handle still answers, if only with errors, takes another record unless it is poisoned, and
 * closes;
 * - once it is closed no memory, no descriptor and no mapping is left;
 * - the database, reopened, holds all that was acknowledged and nothing that was refused, and check
 * finds nothing;
 * - so it does after the power goes at that moment and what no sync had confirmed is lost: the
 * writes before a failed sync are gone for good there, whatever later syncs said.
 *
 * And without any fault: what is visible is durable.
 *
 * Argument: a part of the scenarios' names. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1

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
    {"ENOSPC from then on", CRASH_CALL_WRITE | CRASH_CALL_SPACE, 1, OMENDB_FULL, ENOSPC},
    {"EMFILE once", CRASH_CALL_OPEN, 0, OMENDB_IOERR, EMFILE},
    {"EMFILE from then on", CRASH_CALL_OPEN, 1, OMENDB_IOERR, EMFILE},
    {"no mapping once", CRASH_CALL_MAP, 0, OMENDB_NOMEM, ENOMEM},
    {"no mapping from then on", CRASH_CALL_MAP, 1, OMENDB_NOMEM, ENOMEM}};

#define IO_FAULTS (sizeof io_faults / sizeof io_faults[0])
#define IO_WAYS   (IO_FAULTS * 2) /* mapped or read */
#define IO_MOST   200             /* runs of a shard, where not all are made */

static const struct io_fault *io_fault; /* of the run */
static uint64_t io_at;
static const char *io_filter;
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
    crash_fs_own(disk);
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

static int io_is_balanced(const struct fault_scenario *scenario, const struct fault_run *run)
{
    const int handles = fault_vfs_is_balanced(run), memory = fault_memory_is_balanced(run);
    return handles && memory ? 1 : io_complain(scenario, "something was not given back", OMENDB_OK);
}

/* One run. *done: the fault lies past the last call. */
static int io_run(const struct fault_scenario *scenario, const struct crash_fs *start,
                  const struct fault_run *reference, uint32_t io, int *done)
{
    struct fault_memory memory;
    struct fault_run run = {.fs = crash_fs_copy(start), .memory = &memory, .io = io};
    int good = 1;
    fault_memory_init(&memory);
    memcpy(run.states, reference->states, sizeof run.states);
    run.fs->recording = 1;
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
    if (good)
        good = io_is_balanced(scenario, &run);
    if (good && commits == run.acknowledged)
        good = io_reopen(scenario, &run, status, crash_fs_copy(run.fs), "reopening");
    crash_fs_destroy(run.fs);
    pthread_mutex_destroy(&memory.mutex);
    return good;
}

/* One scenario with one kind of fault, mapped or read. */
static int io_shard(uint64_t shard, void *result, const void *filter)
{
    const struct fault_scenario *scenario = &fault_scenarios[shard / IO_WAYS];
    struct fault_run reference = {.reference = 1,
                                  .io = shard % 2 ? OMENDB_IO_MAP : OMENDB_IO_PREAD};
    uint64_t *runs = result;
    int bad = 0, done = 0;
    if (filter != NULL && strstr(scenario->name, filter) == NULL)
        return 0;
    struct crash_fs *start = fault_prepare(scenario->start);
    io_fault = &io_faults[shard % IO_WAYS / 2];
    io_at = 0;
    reference.fs = crash_fs_copy(start);
    const int status = fault_play(&reference, scenario, io_arm);
    if (status != OMENDB_OK)
        bad += !io_complain(scenario, "without a fault", status);
    const uint64_t step = fault_step(reference.fs->faults.calls, IO_MOST);
    reference.fs->faults.kinds = 0;
    fault_close(&reference);
    for (io_at = 1; !done && bad == 0; io_at += step, ++*runs)
        bad += !io_run(scenario, start, &reference, reference.io, &done);
    crash_fs_destroy(reference.fs);
    crash_fs_destroy(start);
    return bad;
}

TEST(a_failing_file_system_loses_nothing)
{
    CHECK_EQ_INT(fault_run_all(io_filter, IO_WAYS, io_shard), 0);
}

/* What a commit in progress shows while its log is being synced. */
struct io_watch {
    omendb_collection *docs;
    uint64_t expected, seen_early, looks;
};

static void io_look(void *argument)
{
    struct io_watch *watch = argument;
    uint64_t count = 0;
    watch->looks++;
    if (omendb_count(watch->docs, NULL, &count) != OMENDB_OK || count != watch->expected)
        watch->seen_early++;
}

TEST(a_commit_is_not_visible_before_it_is_durable)
{
    struct fault_run run = {.fs = fault_prepare(FAULT_CLOSED)};
    CHECK_EQ_INT(fault_open(&run), OMENDB_OK);
    CHECK_EQ_INT(fault_put_many(&run, run.docs, NULL, FAULT_DOCS, 1000, 1, 1), OMENDB_OK);
    struct io_watch watch = {.docs = run.docs};
    run.fs->before_sync = io_look;
    run.fs->argument = &watch;
    for (uint64_t i = 0; i < 20; i++) {
        CHECK_EQ_INT(omendb_count(run.docs, NULL, &watch.expected), OMENDB_OK);
        CHECK_EQ_INT(fault_put_many(&run, run.docs, NULL, FAULT_DOCS, 2000 + i * 3, 3, i),
                     OMENDB_OK);
    }
    run.fs->before_sync = NULL;
    CHECK_EQ_INT(watch.seen_early, 0);
    CHECK(watch.looks >= 20);
    CHECK_EQ_INT(fault_close(&run), OMENDB_OK);
    crash_fs_destroy(run.fs);
}

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {a_commit_is_not_visible_before_it_is_durable,
                                        a_failing_file_system_loses_nothing};
    io_filter = argc > 1 ? argv[1] : NULL;
    return test_run(1, argv, all, 2,
                    "a_commit_is_not_visible_before_it_is_durable, "
                    "a_failing_file_system_loses_nothing");
}
