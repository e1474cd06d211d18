/* fault_posix.c: the system calls under vfs_posix.c are interrupted, do a part, or fail.
 *
 * Names of system calls are macros for functions of this file while omendb.c is read, so that its
 * vfs for the operating system calls those. Then must hold:
 * - reads and writes that are interrupted again and again, or move one part of the bytes at a time,
 *   change nothing: the library gives the same answers and the same files;
 * - a call that fails is told: the code is of its kind, all descriptors are closed, and the
 *   database, reopened, is at the last acknowledged commit or at the one that failed;
 * - a sync of a file that failed is never tried again. */
#define _GNU_SOURCE 1

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define HOST_DESCRIPTORS 1024

enum {
    HOST_OPEN = 1,
    HOST_READ = 2,
    HOST_WRITE = 4,
    HOST_SPACE = 8,
    HOST_SYNC = 16,
    HOST_NAME = 32,
    HOST_MAP = 64,
    HOST_CLOSE = 128,
    HOST_ALL = 255
};

static struct {
    int kinds, forever, error;
    uint64_t at, calls, hits;
    int trickle; /* reads and writes are interrupted and short */
    uint64_t interrupted;
    int64_t open;
    uint8_t sync_failed[HOST_DESCRIPTORS];
    uint64_t synced_again;
} host;

static int host_fails(int kind)
{
    if ((host.kinds & kind) == 0)
        return 0;
    host.calls++;
    if (host.calls < host.at || (host.calls > host.at && !host.forever))
        return 0;
    host.hits++;
    errno = host.error;
    return 1;
}

/* Each second call is interrupted; the others move a third of the bytes, at least one. */
static int host_interrupts(size_t *size)
{
    if (!host.trickle)
        return 0;
    if (host.interrupted++ % 2 == 0) {
        errno = EINTR;
        return 1;
    }
    *size = *size / 3 > 0 ? *size / 3 : 1;
    return 0;
}

static int host_openat(int directory, const char *name, int flags, mode_t mode)
{
    size_t unused = 0;
    if (host_fails(HOST_OPEN))
        return -1;
    if (host.interrupted % 3 == 0 && host_interrupts(&unused))
        return -1;
    const int descriptor = openat(directory, name, flags, mode);
    if (descriptor >= 0)
        host.open++;
    if (descriptor >= 0 && descriptor < HOST_DESCRIPTORS)
        host.sync_failed[descriptor] = 0;
    return descriptor;
}

/* The descriptor is gone, whatever is returned. */
static int host_close(int descriptor)
{
    const int fails = host_fails(HOST_CLOSE);
    const int error = errno;
    host.open--;
    const int status = close(descriptor);
    errno = fails ? error : errno;
    return fails ? -1 : status;
}

static int host_closedir(DIR *entries)
{
    host.open--;
    return closedir(entries);
}

static ssize_t host_pread(int descriptor, void *buffer, size_t size, off_t offset)
{
    if (host_fails(HOST_READ) || host_interrupts(&size))
        return -1;
    return pread(descriptor, buffer, size, offset);
}

/* A write that fails leaves its first half. */
static ssize_t host_pwrite(int descriptor, const void *buffer, size_t size, off_t offset)
{
    if (host_fails(HOST_WRITE)) {
        const int error = errno;
        const ssize_t done = pwrite(descriptor, buffer, size / 2, offset);
        errno = done < 0 ? errno : error;
        return -1;
    }
    if (host_interrupts(&size))
        return -1;
    return pwrite(descriptor, buffer, size, offset);
}

static int host_ftruncate(int descriptor, off_t size)
{
    size_t unused = 0;
    if (host_fails(HOST_SPACE) || host_interrupts(&unused))
        return -1;
    return ftruncate(descriptor, size);
}

static int host_fallocate(int descriptor, int mode, off_t offset, off_t size)
{
    size_t unused = 0;
    if (host_fails(HOST_SPACE) || host_interrupts(&unused))
        return -1;
    return fallocate(descriptor, mode, offset, size);
}

static int host_fsync(int descriptor)
{
    return host_fails(HOST_SYNC) ? -1 : fsync(descriptor);
}

static int host_fdatasync(int descriptor)
{
    if (descriptor < HOST_DESCRIPTORS)
        host.synced_again += host.sync_failed[descriptor];
    if (!host_fails(HOST_SYNC))
        return fdatasync(descriptor);
    if (descriptor < HOST_DESCRIPTORS)
        host.sync_failed[descriptor] = 1;
    return -1;
}

static int host_renameat(int from_directory, const char *from, int to_directory, const char *to)
{
    return host_fails(HOST_NAME) ? -1 : renameat(from_directory, from, to_directory, to);
}

static int host_unlinkat(int directory, const char *name, int flags)
{
    return host_fails(HOST_NAME) ? -1 : unlinkat(directory, name, flags);
}

static int host_mkdir(const char *path, mode_t mode)
{
    return host_fails(HOST_NAME) ? -1 : mkdir(path, mode);
}

static void *host_mmap(void *address, size_t size, int protection, int flags, int descriptor,
                       off_t offset)
{
    if (descriptor >= 0 && host_fails(HOST_MAP))
        return MAP_FAILED;
    return mmap(address, size, protection, flags, descriptor, offset);
}

#define openat    host_openat
#define close     host_close
#define pread     host_pread
#define pwrite    host_pwrite
#define ftruncate host_ftruncate
#define fallocate host_fallocate
#define fsync     host_fsync
#define fdatasync host_fdatasync
#define renameat  host_renameat
#define unlinkat  host_unlinkat
#define mkdir     host_mkdir
#define mmap      host_mmap
#define closedir  host_closedir

#include "omendb.c"

#undef openat
#undef pread
#undef pwrite
#undef ftruncate
#undef fallocate
#undef fsync
#undef fdatasync
#undef renameat
#undef unlinkat
#undef mkdir
#undef mmap
#undef closedir

#include "parallel.h"
#include "support.h"
#include "test.h"

#define WORK_DIM     12
#define WORK_COMMITS 16

/* What was committed: digests of a run without faults, and how far this one came. */
struct work_run {
    omendb *db;
    omendb_collection *docs;
    uint64_t states[WORK_COMMITS];
    size_t commits;
    int reference;
    uint32_t io;
};

static int work_open(struct work_run *run, const char *path)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = 0;
    options.wal_limit = 24 * 1024;
    options.tail_limit = 16 * 1024;
    options.io = run->io;
    return omendb_open(path, &options, &run->db);
}

static int work_commit(struct work_run *run, int status)
{
    if (status != OMENDB_OK)
        return status;
    run->commits++;
    return run->reference ? support_digest(run->db, NULL, &run->states[run->commits]) : OMENDB_OK;
}

static int work_put(struct work_run *run, uint64_t first, uint64_t count, uint64_t value)
{
    float vectors[100 * WORK_DIM];
    uint64_t ids[100];
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = first + i;
        support_vector(value + i, WORK_DIM, vectors + i * WORK_DIM);
    }
    return work_commit(
        run, omendb_put_batch(run->docs, NULL, (size_t)count, ids, vectors, OMENDB_F32, NULL));
}

static int work_close(struct work_run *run)
{
    omendb_collection_close(run->docs);
    run->docs = NULL;
    const int status = omendb_close(run->db);
    run->db = NULL;
    return status;
}

/* Commits, checkpoints, a merge, a clean close, a reopening. Stops at the first error. */
static int work_do(struct work_run *run, const char *path)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = WORK_DIM;
    schema.M = 4;
    schema.ef_construction = 16;
    int status = work_open(run, path);
    if (status == OMENDB_OK)
        status = work_commit(run, omendb_collection_create(run->db, "docs", &schema, &run->docs));
    if (status == OMENDB_OK)
        status = work_put(run, 0, 90, 1);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    for (uint64_t i = 0; i < 4 && status == OMENDB_OK; i++)
        status = work_put(run, i * 40, 80, 1000 * i);
    if (status == OMENDB_OK)
        status = work_commit(run, omendb_delete(run->docs, NULL, 17));
    if (status == OMENDB_OK)
        status = omendb_optimize(run->db, NULL, NULL);
    if (status == OMENDB_OK)
        status = work_put(run, 300, 20, 9000);
    if (status == OMENDB_OK)
        status = work_close(run);
    if (status == OMENDB_OK)
        status = work_open(run, path);
    if (status == OMENDB_OK)
        status = omendb_collection_open(run->db, "docs", NULL, &run->docs);
    return status == OMENDB_OK ? work_put(run, 5, 1, 70000) : status;
}

static void work_arm(int kinds, int error, int forever, uint64_t at)
{
    memset(&host, 0, sizeof host);
    host.kinds = kinds;
    host.error = error;
    host.forever = forever;
    host.at = at;
}

/* The digests of a run without faults, calls counted. */
static int work_reference(struct work_run *run, uint32_t io, int kinds, const char *path)
{
    memset(run, 0, sizeof *run);
    run->reference = 1;
    run->io = io;
    work_arm(kinds, 0, 0, UINT64_MAX);
    const int status = work_do(run, path);
    const int closed = work_close(run);
    return status != OMENDB_OK ? status : closed;
}

TEST(interrupted_and_short_calls_change_nothing)
{
    struct work_run plain, trickled;
    for (uint32_t io = 0; io < 2; io++) {
        CHECK_EQ_INT(work_reference(&plain, io, 0, support_path("plain")), OMENDB_OK);
        memset(&trickled, 0, sizeof trickled);
        trickled.reference = 1;
        trickled.io = io;
        work_arm(0, 0, 0, 0);
        host.trickle = 1;
        const char *path = support_path("trickled");
        CHECK_EQ_INT(work_do(&trickled, path), OMENDB_OK);
        CHECK_EQ_INT(work_close(&trickled), OMENDB_OK);
        CHECK_EQ_INT(work_open(&trickled, path), OMENDB_OK);
        CHECK_EQ_INT(support_check(trickled.db), OMENDB_OK);
        CHECK_EQ_INT(work_close(&trickled), OMENDB_OK);
        CHECK(host.interrupted > 100);
        CHECK_EQ_INT(host.open, 0);
        CHECK_EQ_INT(trickled.commits, plain.commits);
        CHECK(memcmp(trickled.states, plain.states, sizeof plain.states) == 0);
    }
}

struct host_fault {
    const char *name;
    int kinds, error, forever, code;
};

static const struct host_fault host_faults[] = {
    {"EIO once", HOST_ALL, EIO, 0, OMENDB_IOERR},
    {"EIO from then on", HOST_ALL, EIO, 1, OMENDB_IOERR},
    {"ENOSPC once", HOST_WRITE | HOST_SPACE, ENOSPC, 0, OMENDB_FULL},
    {"ENOSPC from then on", HOST_WRITE | HOST_SPACE | HOST_SYNC, ENOSPC, 1, OMENDB_FULL},
    {"EDQUOT once", HOST_WRITE | HOST_SPACE, EDQUOT, 0, OMENDB_FULL},
    {"EMFILE once", HOST_OPEN, EMFILE, 0, OMENDB_IOERR},
    {"ENFILE from then on", HOST_OPEN, ENFILE, 1, OMENDB_IOERR},
    {"EINTR of a sync", HOST_SYNC, EINTR, 0, OMENDB_IOERR},
    {"ENOMEM of a mapping", HOST_MAP, ENOMEM, 0, OMENDB_NOMEM}};

#define HOST_FAULTS (sizeof host_faults / sizeof host_faults[0])

static int host_complain(const struct host_fault *fault, uint64_t at, const char *what, int status)
{
    fprintf(stderr, "%s, at call %llu: %s: %s (%s)\n", fault->name, (unsigned long long)at, what,
            omendb_strerror(status), omendb_errmsg());
    return 1;
}

/* What the disk holds, without faults. A fault before the first commit may leave nothing. */
static int host_reopen(const struct host_fault *fault, uint64_t at, const struct work_run *run,
                       const struct work_run *reference, const char *path)
{
    struct work_run again = {.io = run->io};
    uint64_t digest = 0;
    int status = work_open(&again, path);
    if (status == OMENDB_OK)
        status = support_digest(again.db, NULL, &digest);
    if (status == OMENDB_OK && digest != reference->states[run->commits] &&
        digest != reference->states[run->commits + 1])
        status = OMENDB_CORRUPT;
    if (status == OMENDB_OK)
        status = support_check(again.db);
    const int closed = work_close(&again);
    status = status == OMENDB_OK ? closed : status;
    return status == OMENDB_OK ? 0 : host_complain(fault, at, "after reopening", status);
}

static int host_run(const struct host_fault *fault, uint64_t at, uint32_t io,
                    const struct work_run *reference, const char *name, int *done)
{
    struct work_run run = {.io = io};
    const char *path = support_path(name);
    work_arm(fault->kinds, fault->error, fault->forever, at);
    const int status = work_do(&run, path);
    *done = host.hits == 0;
    const int closed = work_close(&run);
    host.kinds = 0;
    if (status != OMENDB_OK && status != fault->code && status != OMENDB_POISONED)
        return host_complain(fault, at, "code", status);
    if (closed != OMENDB_OK && closed != fault->code && closed != OMENDB_POISONED)
        return host_complain(fault, at, "code of close", closed);
    if (host.synced_again > 0)
        return host_complain(fault, at, "a sync that failed was tried again", status);
    if (host.open != 0)
        return host_complain(fault, at, "descriptors are left open", status);
    return host_reopen(fault, at, &run, reference, path);
}

/* One kind of fault, mapped or read. */
static int host_shard(uint64_t shard, void *result, const void *argument)
{
    const struct host_fault *fault = &host_faults[shard / 2];
    const uint32_t io = shard % 2 ? OMENDB_IO_MAP : OMENDB_IO_PREAD;
    const double scale = support_scale();
    struct work_run reference;
    uint64_t *runs = result;
    int done = 0, bad = 0;
    char name[32];
    (void)argument;
    snprintf(name, sizeof name, "failing-%llu", (unsigned long long)shard);
    if (work_reference(&reference, io, fault->kinds, support_path(name)) != OMENDB_OK)
        bad = host_complain(fault, 0, "without a fault", OMENDB_OK);
    for (uint64_t at = 1; !done && bad == 0; at += scale < 1.0 ? (uint64_t)(1.0 / scale) : 1) {
        bad = host_run(fault, at, io, &reference, name, &done);
        ++*runs;
    }
    if (bad == 0)
        support_path(name);
    return bad;
}

TEST(a_system_call_that_fails_loses_nothing)
{
    support_folder();
    uint64_t *runs = parallel_memory(HOST_FAULTS * 2 * sizeof *runs);
    const int bad = parallel_run(HOST_FAULTS * 2, 1, host_shard, sizeof *runs, runs, NULL);
    for (size_t i = 0; i < HOST_FAULTS; i++)
        printf("  %-32s %6llu runs\n", host_faults[i].name,
               (unsigned long long)(runs[2 * i] + runs[2 * i + 1]));
    munmap(runs, HOST_FAULTS * 2 * sizeof *runs);
    CHECK_EQ_INT(bad, 0);
}

TEST(numbers_of_the_system_have_codes)
{
    CHECK_EQ_INT(vfs_posix_code(EROFS), OMENDB_PERMISSION);
    CHECK_EQ_INT(vfs_posix_code(ENOSPC), OMENDB_FULL);
    CHECK_EQ_INT(vfs_posix_code(ENOMEM), OMENDB_NOMEM);
    CHECK_EQ_INT(vfs_posix_code(EMFILE), OMENDB_IOERR);
}

TEST_MAIN(numbers_of_the_system_have_codes, interrupted_and_short_calls_change_nothing,
          a_system_call_that_fails_loses_nothing)
