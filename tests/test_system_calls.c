/* test_system_calls.c: each call to the system that the library makes is refused once: the error
 * has its code, what was interrupted goes on, what the system lacks is done without, and nothing
 * leaks.
 *
 * The functions of the C library are defined here, in the program, which the linker prefers; each
 * fails when told to and else does what it should. That is how glibc on Linux works, and what a
 * call means is the same on every processor: elsewhere, and under sanitizers, which have functions
 * of their own in these places, there is nothing to run. */
#define _GNU_SOURCE 1
#undef _FORTIFY_SOURCE /* inline functions of the same names */

#include "support.h"
#include "test.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SYSTEM_SANITIZED 1
#elif defined(__has_feature)
#define SYSTEM_SANITIZED                                                                           \
    (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                        \
     __has_feature(memory_sanitizer))
#else
#define SYSTEM_SANITIZED 0
#endif

#if defined(__linux__) && defined(__GLIBC__) && defined(__x86_64__) && !SYSTEM_SANITIZED

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum system_call {
    SYSTEM_NONE,
    SYSTEM_OPEN,
    SYSTEM_CLOSE,
    SYSTEM_STAT,
    SYSTEM_READ,
    SYSTEM_WRITE,
    SYSTEM_TRUNCATE,
    SYSTEM_ALLOCATE,
    SYSTEM_SYNC,
    SYSTEM_SYNC_DIRECTORY,
    SYSTEM_MAKE_DIRECTORY,
    SYSTEM_MAP,
    SYSTEM_LOCK,
    SYSTEM_LIST,
    SYSTEM_NEXT_ENTRY,
    SYSTEM_MUTEX,
    SYSTEM_CONDITION,
    SYSTEM_CONDITION_CLOCK,
    SYSTEM_CONDITION_ATTRIBUTES,
    SYSTEM_THREAD,
    SYSTEM_MASK,
    SYSTEM_ENTROPY,
    SYSTEM_AFFINITY,
    SYSTEM_CORES
};

/* What fails: the call `at` of this kind, counted from 1, and those up to `last`. */
static struct {
    _Atomic int call;
    _Atomic int seen, at, last, reason;
} system_plan;

static void system_fail(enum system_call call, int at, int last, int reason)
{
    system_plan.seen = 0;
    system_plan.at = at;
    system_plan.last = last;
    system_plan.reason = reason;
    system_plan.call = (int)call;
}

static void system_heal(void)
{
    system_plan.call = SYSTEM_NONE;
}

static int system_fails(enum system_call call)
{
    if (system_plan.call != (int)call)
        return 0;
    const int seen = ++system_plan.seen;
    if (seen < system_plan.at || seen > system_plan.last)
        return 0;
    errno = system_plan.reason;
    return 1;
}

/* The next definition of `name`: the C library's. */
static void system_next(const char *name, void *function)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        abort();
    memcpy(function, &found, sizeof found);
}

/* ------------------------------------------------------------------------------------------------
 * the calls; the names with 64 are those behind the plain ones where off_t has 64 bits */

int openat64(int directory, const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    const unsigned mode = flags & O_CREAT ? va_arg(more, unsigned) : 0;
    va_end(more);
    return system_fails(SYSTEM_OPEN) ? -1 : (int)syscall(SYS_openat, directory, path, flags, mode);
}

int close(int file)
{
    const int closed = (int)syscall(SYS_close, file);
    return system_fails(SYSTEM_CLOSE) ? -1 : closed;
}

int fstat64(int file, struct stat64 *facts)
{
    return system_fails(SYSTEM_STAT) ? -1 : (int)syscall(SYS_fstat, file, facts);
}

ssize_t pread64(int file, void *buffer, size_t size, off_t offset)
{
    return system_fails(SYSTEM_READ) ? -1 : syscall(SYS_pread64, file, buffer, size, offset);
}

/* Reason 0: nothing was written, and no error is told. */
ssize_t pwrite64(int file, const void *buffer, size_t size, off_t offset)
{
    if (system_fails(SYSTEM_WRITE))
        return system_plan.reason == 0 ? 0 : -1;
    return syscall(SYS_pwrite64, file, buffer, size, offset);
}

int ftruncate64(int file, off_t size)
{
    return system_fails(SYSTEM_TRUNCATE) ? -1 : (int)syscall(SYS_ftruncate, file, size);
}

int fallocate64(int file, int mode, off_t offset, off_t size)
{
    return system_fails(SYSTEM_ALLOCATE) ? -1
                                         : (int)syscall(SYS_fallocate, file, mode, offset, size);
}

int fdatasync(int file)
{
    return system_fails(SYSTEM_SYNC) ? -1 : (int)syscall(SYS_fdatasync, file);
}

int fsync(int file)
{
    return system_fails(SYSTEM_SYNC_DIRECTORY) ? -1 : (int)syscall(SYS_fsync, file);
}

int mkdir(const char *path, mode_t mode)
{
    return system_fails(SYSTEM_MAKE_DIRECTORY) ? -1 : (int)syscall(SYS_mkdir, path, mode);
}

void *mmap64(void *wanted, size_t size, int protection, int flags, int file, off_t offset)
{
    if (file >= 0 && system_fails(SYSTEM_MAP))
        return MAP_FAILED;
    return (void *)(uintptr_t)syscall(SYS_mmap, wanted, size, protection, flags, file, offset);
}

int fcntl64(int file, int command, ...)
{
    va_list more;
    va_start(more, command);
    void *argument = va_arg(more, void *);
    va_end(more);
    return system_fails(SYSTEM_LOCK) ? -1 : (int)syscall(SYS_fcntl, file, command, argument);
}

DIR *fdopendir(int file)
{
    DIR *(*next)(int file);
    system_next("fdopendir", &next);
    return system_fails(SYSTEM_LIST) ? NULL : next(file);
}

struct dirent64 *readdir64(DIR *entries)
{
    struct dirent64 *(*next)(DIR * entries);
    system_next("readdir64", &next);
    return system_fails(SYSTEM_NEXT_ENTRY) ? NULL : next(entries);
}

int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes)
{
    int (*next)(pthread_mutex_t * mutex, const pthread_mutexattr_t *attributes);
    system_next("pthread_mutex_init", &next);
    return system_fails(SYSTEM_MUTEX) ? ENOMEM : next(mutex, attributes);
}

int pthread_cond_init(pthread_cond_t *condition, const pthread_condattr_t *attributes)
{
    int (*next)(pthread_cond_t * condition, const pthread_condattr_t *attributes);
    system_next("pthread_cond_init", &next);
    return system_fails(SYSTEM_CONDITION) ? EAGAIN : next(condition, attributes);
}

int pthread_condattr_init(pthread_condattr_t *attributes)
{
    int (*next)(pthread_condattr_t * attributes);
    system_next("pthread_condattr_init", &next);
    return system_fails(SYSTEM_CONDITION_ATTRIBUTES) ? ENOMEM : next(attributes);
}

int pthread_condattr_setclock(pthread_condattr_t *attributes, clockid_t clock_id)
{
    int (*next)(pthread_condattr_t * attributes, clockid_t clock_id);
    system_next("pthread_condattr_setclock", &next);
    return system_fails(SYSTEM_CONDITION_CLOCK) ? EINVAL : next(attributes, clock_id);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                   void *argument)
{
    int (*next)(pthread_t * thread, const pthread_attr_t *attributes, void *(*run)(void *),
                void *argument);
    system_next("pthread_create", &next);
    return system_fails(SYSTEM_THREAD) ? EAGAIN : next(thread, attributes, run, argument);
}

int pthread_sigmask(int how, const sigset_t *set, sigset_t *before)
{
    int (*next)(int how, const sigset_t *set, sigset_t *before);
    system_next("pthread_sigmask", &next);
    return system_fails(SYSTEM_MASK) ? EINVAL : next(how, set, before);
}

int getentropy(void *bytes, size_t size)
{
    int (*next)(void *bytes, size_t size);
    system_next("getentropy", &next);
    return system_fails(SYSTEM_ENTROPY) ? -1 : next(bytes, size);
}

int sched_getaffinity(pid_t process, size_t size, cpu_set_t *allowed)
{
    int (*next)(pid_t process, size_t size, cpu_set_t * allowed);
    system_next("sched_getaffinity", &next);
    return system_plan.call == SYSTEM_CORES || system_fails(SYSTEM_AFFINITY)
               ? -1
               : next(process, size, allowed);
}

/* The reason is what is answered. */
long sysconf(int name)
{
    long (*next)(int name);
    system_next("sysconf", &next);
    return name == _SC_NPROCESSORS_ONLN && system_fails(SYSTEM_CORES) ? system_plan.reason
                                                                      : next(name);
}

/* ------------------------------------------------------------------------------------------------
 * files */

static const omendb_vfs *system_vfs;
static void *system_directory, *system_file;
static char system_folder[4096];

#define SYSTEM_READ_WRITE (OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE)

/* A directory with a file of 100 bytes. 1 when all went well. */
static int system_begin(void)
{
    static const char bytes[100];
    system_vfs = omendb_default_vfs();
    snprintf(system_folder, sizeof system_folder, "%s", support_path("system"));
    if (system_vfs->open_directory(NULL, system_folder, 1, &system_directory) != OMENDB_OK ||
        system_vfs->open(NULL, system_directory, "file", SYSTEM_READ_WRITE, &system_file) !=
            OMENDB_OK)
        return 0;
    return system_vfs->write(NULL, system_file, 0, bytes, sizeof bytes) == OMENDB_OK;
}

static void system_end(void)
{
    system_heal();
    system_vfs->close(NULL, system_file);
    system_vfs->close_directory(NULL, system_directory);
    support_remove(system_folder);
}

static int system_stop(void *argument, const char *name)
{
    (void)argument;
    (void)name;
    return 0;
}

/* Runs the call of the vfs that begins with this call of the system. */
static int system_run(enum system_call call)
{
    char buffer[100] = {0}, text[64];
    const void *mapped = NULL;
    void *file = NULL, *directory = NULL;
    uint64_t size;
    int code;
    switch (call) {
    case SYSTEM_OPEN:
        code = system_vfs->open(NULL, system_directory, "file", OMENDB_OPEN_READ, &file);
        if (code == OMENDB_OK)
            system_vfs->close(NULL, file);
        return code;
    case SYSTEM_CLOSE:
        system_heal();
        if (system_vfs->open(NULL, system_directory, "file", OMENDB_OPEN_READ, &file) != OMENDB_OK)
            return -1;
        system_plan.call = SYSTEM_CLOSE;
        return system_vfs->close(NULL, file);
    case SYSTEM_STAT:
        return system_vfs->size(NULL, system_file, &size);
    case SYSTEM_READ:
        return system_vfs->read(NULL, system_file, 0, buffer, sizeof buffer);
    case SYSTEM_WRITE:
        return system_vfs->write(NULL, system_file, 0, buffer, sizeof buffer);
    case SYSTEM_TRUNCATE:
        return system_vfs->truncate(NULL, system_file, 100);
    case SYSTEM_ALLOCATE:
        return system_vfs->allocate(NULL, system_file, 4096);
    case SYSTEM_SYNC:
        return system_vfs->sync(NULL, system_file);
    case SYSTEM_SYNC_DIRECTORY:
        return system_vfs->sync_directory(NULL, system_directory);
    case SYSTEM_MAKE_DIRECTORY:
        snprintf(text, sizeof text, "%s", "/proc/no-such-place");
        code = system_vfs->open_directory(NULL, text, 1, &directory);
        return code;
    case SYSTEM_MAP:
        code = system_vfs->map(NULL, system_file, 100, &mapped);
        if (code == OMENDB_OK)
            system_vfs->unmap(NULL, mapped, 100);
        return code;
    case SYSTEM_LOCK:
        return system_vfs->lock(NULL, system_file, OMENDB_LOCK_EXCLUSIVE);
    case SYSTEM_LIST:
    case SYSTEM_NEXT_ENTRY:
        return system_vfs->list(NULL, system_directory, system_stop, NULL);
    default:
        return -1;
    }
}

TEST(what_the_system_refuses_has_a_code)
{
    static const struct {
        enum system_call call;
        int reason, code;
    } cases[] = {
        {SYSTEM_OPEN, EMFILE, OMENDB_IOERR},
        {SYSTEM_OPEN, EPERM, OMENDB_PERMISSION},
        {SYSTEM_OPEN, ENOMEM, OMENDB_NOMEM},
        {SYSTEM_CLOSE, EIO, OMENDB_IOERR},
        {SYSTEM_STAT, EIO, OMENDB_IOERR},
        {SYSTEM_READ, EIO, OMENDB_IOERR},
        {SYSTEM_WRITE, EDQUOT, OMENDB_FULL},
        {SYSTEM_WRITE, ENOSPC, OMENDB_FULL},
        {SYSTEM_WRITE, 0, OMENDB_IOERR},
        {SYSTEM_TRUNCATE, EIO, OMENDB_IOERR},
        {SYSTEM_ALLOCATE, ENOSPC, OMENDB_FULL},
        {SYSTEM_SYNC, EIO, OMENDB_IOERR},
        {SYSTEM_SYNC_DIRECTORY, EIO, OMENDB_IOERR},
        {SYSTEM_MAKE_DIRECTORY, EROFS, OMENDB_PERMISSION},
        {SYSTEM_MAP, ENOMEM, OMENDB_NOMEM},
        {SYSTEM_MAP, ENODEV, OMENDB_UNSUPPORTED},
        {SYSTEM_LOCK, EAGAIN, OMENDB_BUSY},
        {SYSTEM_LOCK, EACCES, OMENDB_BUSY},
        {SYSTEM_LOCK, ENOLCK, OMENDB_IOERR},
        {SYSTEM_LIST, ENOMEM, OMENDB_NOMEM},
        {SYSTEM_NEXT_ENTRY, EIO, OMENDB_IOERR},
    };
    CHECK(system_begin());
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        system_fail(cases[i].call, 1, 1, cases[i].reason);
        const int code = system_run(cases[i].call);
        const int seen = system_plan.seen;
        system_heal();
        if (code != cases[i].code || seen == 0)
            fprintf(stderr, "    case %zu\n", i);
        CHECK(seen > 0);
        CHECK_EQ_INT(code, cases[i].code);
    }
    system_end();
}

/* EINTR: again, as often as it takes; but never for close. */
TEST(what_was_interrupted_goes_on)
{
    static const enum system_call calls[] = {SYSTEM_OPEN,     SYSTEM_READ,     SYSTEM_WRITE,
                                             SYSTEM_TRUNCATE, SYSTEM_ALLOCATE, SYSTEM_CLOSE};
    CHECK(system_begin());
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        system_fail(calls[i], 1, 3, EINTR);
        CHECK_EQ_INT(system_run(calls[i]), OMENDB_OK);
        CHECK_EQ_INT(system_plan.seen, calls[i] == SYSTEM_CLOSE ? 1 : 4);
        system_heal();
    }
    system_end();
}

TEST(where_space_cannot_be_reserved_files_are_only_extended)
{
    static const int reasons[] = {EOPNOTSUPP, ENOSYS, EINVAL};
    uint64_t size = 0;
    CHECK(system_begin());
    for (size_t i = 0; i < sizeof reasons / sizeof reasons[0]; i++) {
        CHECK_EQ_INT(system_vfs->truncate(NULL, system_file, 100), OMENDB_OK);
        system_fail(SYSTEM_ALLOCATE, 1, 2, reasons[i]);
        CHECK_EQ_INT(system_vfs->allocate(NULL, system_file, 4096), OMENDB_OK);
        CHECK_EQ_INT(system_vfs->size(NULL, system_file, &size), OMENDB_OK);
        CHECK_EQ_INT(size, 4096);
        CHECK_EQ_INT(system_vfs->allocate(NULL, system_file, 10), OMENDB_OK); /* never shortens */
        CHECK_EQ_INT(system_vfs->size(NULL, system_file, &size), OMENDB_OK);
        CHECK_EQ_INT(size, 4096);
        system_heal();
    }
    system_end();
}

TEST(a_file_system_that_cannot_sync_directories_is_taken_as_it_is)
{
    CHECK(system_begin());
    system_fail(SYSTEM_SYNC_DIRECTORY, 1, 1, EINVAL);
    CHECK_EQ_INT(system_vfs->sync_directory(NULL, system_directory), OMENDB_OK);
    system_end();
}

/* A new directory's parent is opened and synced; then the directory is not handed out. */
TEST(a_directory_that_could_not_be_made_durable_is_not_opened)
{
    char path[4200];
    void *directory = &directory;
    CHECK(system_begin());
    for (int at = 2; at <= 4; at++) {
        snprintf(path, sizeof path, "%s/new%d", system_folder, at);
        system_fail(SYSTEM_OPEN, at, at, EMFILE);
        CHECK_EQ_INT(system_vfs->open_directory(NULL, path, 1, &directory), OMENDB_IOERR);
        CHECK(directory == NULL);
    }
    snprintf(path, sizeof path, "%s/new", system_folder);
    system_fail(SYSTEM_SYNC_DIRECTORY, 1, 1, EIO);
    CHECK_EQ_INT(system_vfs->open_directory(NULL, path, 1, &directory), OMENDB_IOERR);
    CHECK(directory == NULL);
    /* somebody else made it meanwhile */
    snprintf(path, sizeof path, "%s/other", system_folder);
    system_fail(SYSTEM_MAKE_DIRECTORY, 1, 1, EEXIST);
    CHECK_EQ_INT(system_vfs->open_directory(NULL, path, 1, &directory), OMENDB_NOTFOUND);
    system_end();
}

TEST(facts_of_a_file_that_cannot_be_had_are_an_error_everywhere)
{
    char text[64];
    const void *mapped = NULL;
    void *file = &file;
    CHECK(system_begin());
    system_fail(SYSTEM_STAT, 1, 9, EIO);
    CHECK_EQ_INT(system_vfs->open(NULL, system_directory, "file", OMENDB_OPEN_READ, &file),
                 OMENDB_IOERR);
    CHECK(file == NULL);
    CHECK_EQ_INT(system_vfs->identity(NULL, system_directory, text, sizeof text), OMENDB_IOERR);
    CHECK_EQ_INT(system_vfs->map(NULL, system_file, 10, &mapped), OMENDB_IOERR);
    system_heal();
    CHECK_EQ_INT(system_vfs->identity(NULL, system_directory, text, 2), OMENDB_IOERR);
    CHECK_EQ_INT(system_vfs->truncate(NULL, system_file, UINT64_MAX), OMENDB_FULL);
    CHECK_EQ_INT(system_vfs->allocate(NULL, system_file, UINT64_MAX), OMENDB_FULL);
    CHECK_EQ_INT(system_vfs->write(NULL, system_file, UINT64_MAX, text, 1), OMENDB_FULL);
    CHECK_EQ_INT(system_vfs->read(NULL, system_file, UINT64_MAX, text, 1), OMENDB_IOERR);
    CHECK_EQ_INT(system_vfs->read(NULL, system_file, 0, text, SIZE_MAX), OMENDB_IOERR);
    CHECK_EQ_INT(system_vfs->rename(NULL, system_directory, "a/b", "c"), OMENDB_IOERR);
    CHECK_EQ_INT(system_vfs->rename(NULL, system_directory, "none", "c"), OMENDB_NOTFOUND);
    system_end();
}

/* ------------------------------------------------------------------------------------------------
 * databases */

static const char system_path[] = "system-database";

/* Makes a database with two threads, writes, merges, closes. Stops at the first error. */
static int system_use_database(int32_t threads)
{
    float vector[4] = {1, 2, 3, 4};
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_query query = OMENDB_QUERY_INIT;
    uint64_t ids[10];
    size_t count;
    options.threads = threads;
    schema.dim = 4;
    query.vector = vector;
    int status = omendb_open(support_path(system_path), &options, &db);
    if (status == OMENDB_OK)
        status = omendb_collection_create(db, "docs", &schema, &collection);
    for (uint64_t id = 0; id < 20 && status == OMENDB_OK; id++)
        status = support_put(collection, NULL, id, id, 4);
    if (status == OMENDB_OK)
        status = omendb_optimize(db, NULL, NULL);
    if (status == OMENDB_OK)
        status = omendb_search(collection, NULL, &query, ids, NULL, &count);
    omendb_collection_close(collection);
    const int closed = omendb_close(db);
    return status != OMENDB_OK ? status : closed;
}

/* Each call of the kind fails once, until none is left to fail. That is told, but for the last of
 * each `group`, 0: of none. */
static int system_loop(enum system_call call, int expected, int group)
{
    for (int at = 1; at < 1000; at++) {
        system_fail(call, at, at, 0);
        const int untold = group != 0 && at % group == 0;
        const int status = system_use_database(2), seen = system_plan.seen;
        system_heal();
        if (seen < at)
            return status == OMENDB_OK && at > 1;
        if (status != (untold ? OMENDB_OK : expected)) {
            fprintf(stderr, "    call %d: %s (%s)\n", at, omendb_strerror(status), omendb_errmsg());
            return 0;
        }
    }
    return 0;
}

TEST(a_system_without_mutexes_conditions_or_threads_to_give_is_out_of_memory)
{
    CHECK(system_loop(SYSTEM_MUTEX, OMENDB_NOMEM, 0));
    CHECK(system_loop(SYSTEM_CONDITION, OMENDB_NOMEM, 0));
    CHECK(system_loop(SYSTEM_CONDITION_ATTRIBUTES, OMENDB_NOMEM, 0));
    CHECK(system_loop(SYSTEM_CONDITION_CLOCK, OMENDB_NOMEM, 0));
    CHECK(system_loop(SYSTEM_THREAD, OMENDB_NOMEM, 0));
    CHECK(system_loop(SYSTEM_MASK, OMENDB_NOMEM, 2)); /* it is set, and then as it was */
}

TEST(a_sandbox_without_entropy_cores_or_affinity_has_a_database_all_the_same)
{
    system_fail(SYSTEM_ENTROPY, 1, 1000, ENOSYS);
    CHECK_EQ_INT(system_use_database(0), OMENDB_OK);
    system_fail(SYSTEM_AFFINITY, 1, 1000, ENOSYS);
    CHECK_EQ_INT(system_use_database(OMENDB_THREADS_AUTO), OMENDB_OK);
    system_fail(SYSTEM_CORES, 1, 1000, -1);
    CHECK_EQ_INT(system_use_database(OMENDB_THREADS_AUTO), OMENDB_OK);
    CHECK(system_plan.seen > 0);
    system_heal();
}

TEST(a_file_system_without_mapping_is_read)
{
    system_fail(SYSTEM_MAP, 1, 1000, ENODEV);
    CHECK_EQ_INT(system_use_database(0), OMENDB_OK);
    system_heal();
}

TEST_MAIN(what_the_system_refuses_has_a_code, what_was_interrupted_goes_on,
          where_space_cannot_be_reserved_files_are_only_extended,
          a_file_system_that_cannot_sync_directories_is_taken_as_it_is,
          a_directory_that_could_not_be_made_durable_is_not_opened,
          facts_of_a_file_that_cannot_be_had_are_an_error_everywhere,
          a_system_without_mutexes_conditions_or_threads_to_give_is_out_of_memory,
          a_sandbox_without_entropy_cores_or_affinity_has_a_database_all_the_same,
          a_file_system_without_mapping_is_read)

#else

int main(void)
{
    printf("0 passed, 0 failed\n");
    return 0;
}

#endif
