/* fault_salvage.c: while a damaged database is salvaged, each call that can fail does.
 *
 * Several disks, each damaged in its own way, are salvaged once without a fault. Then each
 * allocation fails, and each call of the file system. Without memory there is an error, or all
 * that was saved without the fault is saved. After a failed call there is an error, or it is told,
 * or all is saved. And whatever happens, what is saved is right, and nothing is kept. */
#include "internals.h"

#include "fault_scenarios.h"
#include "ruins.h"
#include "test.h"

#define RUINS_MEMORY (UINT64_C(1) << 30)

/* ------------------------------------------------------------------------------------------------
 * the damage */

static void ruins_manifest(struct crash_fs *fs)
{
    ruins_file(fs, "MANIFEST-")->data[90] ^= 1;
}

static void ruins_overlay(struct crash_fs *fs)
{
    ruins_file(fs, "ovl-")->data[70] ^= 1;
}

static void ruins_overlay_footer(struct crash_fs *fs)
{
    struct crash_inode *file = ruins_file(fs, "ovl-");
    file->data[file->size - 32] ^= 1;
}

static void ruins_segment(struct crash_fs *fs)
{
    ruins_file(fs, "seg-")->data[200] ^= 1;
}

static void ruins_segment_header(struct crash_fs *fs)
{
    ruins_file(fs, "seg-")->data[30] ^= 1;
}

static void ruins_segment_footer(struct crash_fs *fs)
{
    struct crash_inode *file = ruins_file(fs, "seg-");
    file->data[file->size - 32] ^= 1;
}

static void ruins_segment_checksum(struct crash_fs *fs)
{
    struct crash_inode *file = ruins_file(fs, "seg-");
    file->data[file->size - 1] ^= 1;
}

/* The manifest and the checksum of a footer: nothing is left to compare that with. */
static void ruins_checksum_by_name(struct crash_fs *fs)
{
    ruins_segment_checksum(fs);
    ruins_manifest(fs);
}

static void ruins_footer_by_name(struct crash_fs *fs)
{
    ruins_segment_footer(fs);
    ruins_manifest(fs);
}

static void ruins_overlay_by_name(struct crash_fs *fs)
{
    struct crash_inode *file = ruins_file(fs, "ovl-");
    file->data[file->size - 1] ^= 1;
    ruins_manifest(fs);
}

/* A commit in the middle, of "late". */
static void ruins_hole(struct crash_fs *fs)
{
    struct crash_inode *log = ruins_file(fs, "wal-");
    uint64_t at = FORMAT_HEADER_BYTES;
    for (int i = 0; i < 4; i++)
        at += FORMAT_RECORD_BYTES + format_align(format_get32(log->data + at), FORMAT_RECORD_ALIGN);
    log->data[at + 45] ^= 1;
}

static void ruins_log_header(struct crash_fs *fs)
{
    ruins_file(fs, "wal-")->data[20] ^= 1;
}

static void ruins_current(struct crash_fs *fs)
{
    ruins_file(fs, "CURRENT")->data[3] ^= 1;
}

static void ruins_nothing(struct crash_fs *fs)
{
    (void)fs;
}

struct ruin {
    const char *name;
    void (*damage)(struct crash_fs *fs);
    int problems; /* at least */
};

static const struct ruin ruins[] = {
    {"nothing", ruins_nothing, 0},
    {"the manifest", ruins_manifest, 1},
    {"an overlay", ruins_overlay, 1},
    {"an overlay's footer", ruins_overlay_footer, 1},
    {"a segment", ruins_segment, 1},
    {"a segment's header", ruins_segment_header, 1},
    {"a segment's footer", ruins_segment_footer, 1},
    {"a footer's checksum", ruins_segment_checksum, 1},
    {"the manifest and a footer's checksum", ruins_checksum_by_name, 1},
    {"the manifest and a footer", ruins_footer_by_name, 1},
    {"a commit", ruins_hole, 1},
    {"a log's header", ruins_log_header, 1},
    {"the manifest and an overlay's checksum", ruins_overlay_by_name, 1},
    {"CURRENT", ruins_current, 1}};

#define RUINS (sizeof ruins / sizeof ruins[0])

/* ------------------------------------------------------------------------------------------------
 * a run */

struct ruins_run {
    struct crash_fs *fs;
    struct fault_memory memory;
    omendb_salvage_result result;
    uint64_t digest;
    int status;
    int told; /* lines about a failed call */
};

static void ruins_line(void *context, const char *line)
{
    ((struct ruins_run *)context)->told += strstr(line, "Input/output error") != NULL;
}

static void ruins_begin(struct ruins_run *run, const struct crash_fs *start)
{
    void *directory = NULL;
    memset(run, 0, sizeof *run);
    run->fs = crash_fs_copy(start);
    /* An empty directory is a new path, too. */
    ruins_must(run->fs->vfs.open_directory(run->fs, "/new", 1, &directory));
    run->fs->vfs.close_directory(run->fs, directory);
    fault_memory_init(&run->memory);
    omendb_salvage_result_init(&run->result);
}

static void ruins_salvage(struct ruins_run *run, uint64_t memory_limit)
{
    omendb_allocator allocator = {sizeof allocator, &run->memory, fault_alloc, fault_resize,
                                  fault_release};
    omendb_options options;
    ruins_options(run->fs, &options);
    options.allocator = &allocator;
    options.memory_limit = memory_limit;
    if (memory_limit != 0)
        options.sync = OMENDB_SYNC_OFF;
    else
        options.stall_timeout_ms = 4000000;
    run->status = omendb_salvage("/db", "/new", &options, ruins_line, run, &run->result);
}

/* Opens what was saved, once nothing fails any more, and looks at it. 1 where it is whole, and
 * nothing was kept by who saved it. */
static int ruins_look(struct ruins_run *run)
{
    omendb_options options;
    omendb *db = NULL;
    const int64_t handles = run->fs->open_handles, maps = run->fs->maps;
    int status = run->status;
    ruins_options(run->fs, &options);
    if (status == OMENDB_OK)
        status = omendb_open("/new", &options, &db);
    if (status == OMENDB_OK)
        status = support_check(db);
    if (status == OMENDB_OK)
        status = support_digest(db, NULL, &run->digest);
    if (run->status == OMENDB_OK && status != OMENDB_OK)
        fprintf(stderr, "    what was saved: %s\n", omendb_errmsg());
    const int closed = omendb_close(db);
    if (handles != 0 || maps != 0 || run->memory.balance != 0 || run->memory.wrong_sizes != 0)
        fprintf(stderr, "    %lld handles, %lld mappings, %lld bytes are left\n",
                (long long)handles, (long long)maps, (long long)run->memory.balance);
    return status == run->status && closed == OMENDB_OK && handles == 0 && maps == 0 &&
           run->memory.balance == 0 && run->memory.wrong_sizes == 0;
}

static void ruins_end(struct ruins_run *run)
{
    crash_fs_destroy(run->fs);
    pthread_mutex_destroy(&run->memory.mutex);
}

static int ruins_complain(const struct ruin *ruin, const char *what, uint64_t at, int status)
{
    fprintf(stderr, "    damaged: %s; %s %llu: %s: %s\n", ruin->name, what, (unsigned long long)at,
            omendb_strerror(status), omendb_errmsg());
    return 1;
}

/* Without a fault. */
static int ruins_reference(const struct ruin *ruin, const struct crash_fs *start,
                           struct ruins_run *run)
{
    ruins_begin(run, start);
    run->memory.armed = 1;
    run->fs->faults = (struct crash_faults){.kinds = CRASH_CALL_ALL | CRASH_CALL_MAP};
    ruins_salvage(run, 0);
    const int good = run->status == OMENDB_OK && run->result.problems >= (uint64_t)ruin->problems &&
                     (run->result.problems == 0) == (ruin->problems == 0);
    const uint64_t calls = run->fs->faults.calls;
    run->fs->faults.kinds = 0;
    const int whole = ruins_look(run);
    run->fs->faults.calls = calls;
    return good && whole ? 0 : ruins_complain(ruin, "no fault", 0, run->status);
}

/* limit: of the database that is made, whose calls then try again. */
static int ruins_without_memory(const struct ruin *ruin, const struct crash_fs *start,
                                const struct ruins_run *reference, uint64_t at, uint64_t limit)
{
    struct ruins_run run;
    ruins_begin(&run, start);
    run.memory.armed = 1;
    run.memory.at = at;
    ruins_salvage(&run, limit);
    run.memory.armed = 0;
    int bad = run.status != OMENDB_OK && run.status != OMENDB_NOMEM;
    bad |= !ruins_look(&run);
    bad |= run.status == OMENDB_OK &&
           (run.digest != reference->digest || run.result.records != reference->result.records ||
            run.result.problems != reference->result.problems);
    if (bad)
        ruins_complain(ruin, "allocation", at, run.status);
    ruins_end(&run);
    return bad;
}

static int ruins_with_a_failing_call(const struct ruin *ruin, const struct crash_fs *start,
                                     const struct ruins_run *reference, uint64_t at, int code)
{
    struct ruins_run run;
    ruins_begin(&run, start);
    crash_faults_begin(run.fs, CRASH_CALL_ALL | CRASH_CALL_MAP, at, 0, code,
                       code == OMENDB_NOMEM ? ENOMEM : EIO);
    ruins_salvage(&run, 0);
    run.fs->faults.kinds = 0;
    int bad = run.status != OMENDB_OK && run.status != code && run.status != OMENDB_POISONED;
    bad |= !ruins_look(&run);
    bad |= run.status == OMENDB_OK && run.digest != reference->digest && run.told == 0 &&
           run.result.problems <= reference->result.problems;
    /* Only the new database is written to: nothing of it may be lost and OK. */
    bad |= run.status == OMENDB_OK && run.digest != reference->digest &&
           strstr(run.fs->faults.call, "write") != NULL;
    if (bad)
        ruins_complain(ruin, "call", at, run.status);
    ruins_end(&run);
    return bad;
}

#define RUINS_WAYS 3   /* allocations; calls, for another reason or for lack of memory */
#define RUINS_MOST 300 /* runs of a shard, where not all are made */

/* One ruin. Where not all of its runs are made, those of another ruin are others. */
static int ruins_shard(uint64_t shard, void *result, const void *argument)
{
    const size_t i = (size_t)(shard / RUINS_WAYS);
    const int way = (int)(shard % RUINS_WAYS), memory = way == 0;
    struct crash_fs *start = ruins_of_all();
    struct ruins_run reference;
    (void)result;
    (void)argument;
    ruins[i].damage(start);
    int bad = ruins_reference(&ruins[i], start, &reference);
    const uint64_t calls = memory ? reference.memory.calls : reference.fs->faults.calls;
    const uint64_t step = fault_step(calls, RUINS_MOST);
    for (uint64_t at = 1 + i % step; at <= calls && bad == 0; at += step)
        bad = memory ? ruins_without_memory(&ruins[i], start, &reference, at,
                                            at / step % 2 == 0 ? RUINS_MEMORY : 0)
                     : ruins_with_a_failing_call(&ruins[i], start, &reference, at,
                                                 way == 1 ? OMENDB_IOERR : OMENDB_NOMEM);
    ruins_end(&reference);
    crash_fs_destroy(start);
    return bad;
}

TEST(a_salvage_fails_or_tells_or_saves_the_same)
{
    CHECK_EQ_INT(parallel_run(RUINS * RUINS_WAYS, 1, ruins_shard, 0, NULL, NULL), 0);
}

TEST_MAIN(a_salvage_fails_or_tells_or_saves_the_same)
