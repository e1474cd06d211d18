/* vfs_posix.c: files and the clock of the operating system, behind omendb_vfs.
 *
 * A directory and a file are file descriptors, stored in the handle itself (the number plus one, as
 * descriptor 0 must not become NULL), so that this module needs no memory.
 *
 * Invariants:
 * - Everything happens relative to a held directory descriptor: renaming or replacing a parent
 *   directory by somebody else cannot lead a later call elsewhere. Names with '/' are refused, and
 *   symbolic links and things that are not regular files are not opened.
 * - Every function that fails leaves the reason in errno.
 * - fsync is never repeated: after a failure the kernel may have dropped the dirty pages and marked
 *   them clean, and a second call would report success (Rebello et al., "Can Applications Recover
 *   from fsync Failures?", USENIX ATC 2020).
 * - A directory that open_directory made is on the device before the call returns. A crash between
 *   making and syncing leaves an empty directory; so an empty one is synced again at the next open.
 *
 * Locks: of the open file description on Linux (F_OFD_SETLK); POSIX record locks are rejected,
 * because closing any descriptor of the file in the process drops them. Elsewhere flock.
 *
 * fdatasync is enough on Linux: it writes the file's size where reading back needs it. On macOS
 * fsync leaves data in the device's cache, F_FULLFSYNC does not. */
#include "internal.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>

#if defined(__linux__) && !defined(F_OFD_SETLK)
#error "include omendb.c before any system header, so that its feature macros take effect"
#endif

/* The most bytes of one call: below the limits of Linux (2^31 - 4096) and macOS (INT_MAX). */
#define VFS_POSIX_STEP ((size_t)1 << 30)

#if defined(ENODATA)
#define VFS_POSIX_TOO_SHORT ENODATA
#else
#define VFS_POSIX_TOO_SHORT EIO
#endif

static void *vfs_posix_handle(int descriptor)
{
    return (void *)((intptr_t)descriptor + 1);
}

static int vfs_posix_descriptor(const void *handle)
{
    return (int)((intptr_t)handle - 1);
}

static int vfs_posix_code(int system_error)
{
    switch (system_error) {
    case ENOSPC:
    case EFBIG:
#if defined(EDQUOT)
    case EDQUOT:
#endif
        return OMENDB_FULL;
    case EACCES:
    case EPERM:
    case EROFS:
        return OMENDB_PERMISSION;
    case ENOENT:
        return OMENDB_NOTFOUND;
    case EEXIST:
        return OMENDB_EXISTS;
    case ENOMEM:
        return OMENDB_NOMEM;
    default:
        return OMENDB_IOERR;
    }
}

/* The code for the call that just failed. */
static int vfs_posix_failed(void)
{
    return vfs_posix_code(errno);
}

static int vfs_posix_fail(int system_error)
{
    errno = system_error;
    return vfs_posix_code(system_error);
}

static int vfs_posix_name_is_legal(const char *name)
{
    return name[0] != '\0' && strchr(name, '/') == NULL;
}

static int vfs_posix_open_at(int directory, const char *name, int flags)
{
    int descriptor;
    do
        descriptor = openat(directory, name, flags | O_CLOEXEC, 0600);
    while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

/* After a failed call: closes without losing the reason. */
static void vfs_posix_discard(int descriptor)
{
    const int reason = errno;
    close(descriptor);
    errno = reason;
}

/* ------------------------------------------------------------------------------------------------
 * directories */

static int vfs_posix_sync_descriptor_of_directory(int descriptor)
{
    if (fsync(descriptor) == 0)
        return OMENDB_OK;
    /* A file system that cannot sync directories says so by EINVAL; it has no state to lose. */
    return errno == EINVAL ? OMENDB_OK : vfs_posix_failed();
}

static int vfs_posix_sync_parent(int directory)
{
    int status;
    const int parent = vfs_posix_open_at(directory, "..", O_RDONLY | O_DIRECTORY);
    if (parent < 0)
        return vfs_posix_failed();
    status = vfs_posix_sync_descriptor_of_directory(parent);
    vfs_posix_discard(parent);
    return status;
}

static int vfs_posix_list(void *context, void *directory,
                          int (*each)(void *argument, const char *name), void *argument)
{
    DIR *entries;
    struct dirent *entry;
    int status = OMENDB_OK;
    /* A descriptor of its own: the position in the directory belongs to the open description. */
    const int descriptor =
        vfs_posix_open_at(vfs_posix_descriptor(directory), ".", O_RDONLY | O_DIRECTORY);
    (void)context;
    if (descriptor < 0)
        return vfs_posix_failed();
    entries = fdopendir(descriptor);
    if (entries == NULL) {
        vfs_posix_discard(descriptor);
        return vfs_posix_failed();
    }
    while (status == OMENDB_OK) {
        errno = 0;
        entry = readdir(entries);
        if (entry == NULL) {
            status = errno == 0 ? OMENDB_OK : vfs_posix_failed();
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            status = each(argument, entry->d_name);
    }
    const int reason = errno;
    closedir(entries);
    errno = reason;
    return status;
}

static int vfs_posix_stop_listing(void *argument, const char *name)
{
    (void)argument;
    (void)name;
    return OMENDB_EXISTS;
}

/* A directory without entries may be one that was made but not synced. */
static int vfs_posix_sync_if_new(int descriptor)
{
    const int status =
        vfs_posix_list(NULL, vfs_posix_handle(descriptor), vfs_posix_stop_listing, NULL);
    if (status == OMENDB_EXISTS)
        return OMENDB_OK;
    return status != OMENDB_OK ? status : vfs_posix_sync_parent(descriptor);
}

static int vfs_posix_open_directory(void *context, const char *path, int create, void **directory)
{
    const int flags = O_RDONLY | O_DIRECTORY;
    int descriptor = vfs_posix_open_at(AT_FDCWD, path, flags);
    (void)context;
    *directory = NULL;
    if (descriptor < 0 && errno == ENOENT && create) {
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return vfs_posix_failed();
        descriptor = vfs_posix_open_at(AT_FDCWD, path, flags);
    }
    if (descriptor < 0)
        return errno == ENOTDIR ? OMENDB_FORMAT : vfs_posix_failed();
    if (create) {
        const int status = vfs_posix_sync_if_new(descriptor);
        if (status != OMENDB_OK) {
            vfs_posix_discard(descriptor);
            return status;
        }
    }
    *directory = vfs_posix_handle(descriptor);
    return OMENDB_OK;
}

static void vfs_posix_close_directory(void *context, void *directory)
{
    (void)context;
    close(vfs_posix_descriptor(directory));
}

static int vfs_posix_sync_directory(void *context, void *directory)
{
    (void)context;
    return vfs_posix_sync_descriptor_of_directory(vfs_posix_descriptor(directory));
}

static int vfs_posix_rename(void *context, void *directory, const char *from, const char *to)
{
    const int descriptor = vfs_posix_descriptor(directory);
    (void)context;
    if (!vfs_posix_name_is_legal(from) || !vfs_posix_name_is_legal(to))
        return vfs_posix_fail(EINVAL);
    return renameat(descriptor, from, descriptor, to) == 0 ? OMENDB_OK : vfs_posix_failed();
}

static int vfs_posix_unlink(void *context, void *directory, const char *name)
{
    (void)context;
    if (!vfs_posix_name_is_legal(name))
        return vfs_posix_fail(EINVAL);
    return unlinkat(vfs_posix_descriptor(directory), name, 0) == 0 ? OMENDB_OK : vfs_posix_failed();
}

static int vfs_posix_identity(void *context, void *directory, char *text, size_t capacity)
{
    struct stat facts;
    int length;
    (void)context;
    if (fstat(vfs_posix_descriptor(directory), &facts) != 0)
        return vfs_posix_failed();
    length = snprintf(text, capacity, "%llu:%llu", (unsigned long long)facts.st_dev,
                      (unsigned long long)facts.st_ino);
    assert(length > 0);
    return (size_t)length < capacity ? OMENDB_OK : vfs_posix_fail(ERANGE);
}

/* ------------------------------------------------------------------------------------------------
 * files */

static int vfs_posix_open(void *context, void *directory, const char *name, int flags, void **file)
{
    /* O_NONBLOCK: opening a pipe that somebody put there would wait for its other end. */
    int system_flags = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    int descriptor;
    struct stat facts;
    (void)context;
    *file = NULL;
    if (!vfs_posix_name_is_legal(name))
        return vfs_posix_fail(EINVAL);
    system_flags |= flags & OMENDB_OPEN_WRITE ? O_RDWR : O_RDONLY;
    system_flags |= flags & OMENDB_OPEN_CREATE ? O_CREAT : 0;
    system_flags |= flags & OMENDB_OPEN_EXCLUSIVE ? O_EXCL : 0;
    descriptor = vfs_posix_open_at(vfs_posix_descriptor(directory), name, system_flags);
    if (descriptor < 0)
        return vfs_posix_failed();
    if (fstat(descriptor, &facts) != 0) {
        vfs_posix_discard(descriptor);
        return vfs_posix_failed();
    }
    if (!S_ISREG(facts.st_mode)) {
        close(descriptor);
        return vfs_posix_fail(EINVAL);
    }
    *file = vfs_posix_handle(descriptor);
    return OMENDB_OK;
}

/* EINTR: the descriptor is gone all the same on Linux and macOS, and a second close could hit one
 * that another thread got meanwhile. */
static int vfs_posix_close(void *context, void *file)
{
    (void)context;
    return close(vfs_posix_descriptor(file)) == 0 || errno == EINTR ? OMENDB_OK
                                                                    : vfs_posix_failed();
}

static int vfs_posix_size(void *context, void *file, uint64_t *size)
{
    struct stat facts;
    (void)context;
    if (fstat(vfs_posix_descriptor(file), &facts) != 0)
        return vfs_posix_failed();
    *size = (uint64_t)facts.st_size;
    return OMENDB_OK;
}

/* The largest off_t; a position beyond it cannot be named in a call. */
static uint64_t vfs_posix_largest_offset(void)
{
    return (UINT64_C(1) << (sizeof(off_t) * CHAR_BIT - 1)) - 1;
}

static int vfs_posix_range_is_legal(uint64_t offset, uint64_t size)
{
    return size <= vfs_posix_largest_offset() && offset <= vfs_posix_largest_offset() - size;
}

static int vfs_posix_read(void *context, void *file, uint64_t offset, void *buffer, size_t size)
{
    char *bytes = buffer;
    (void)context;
    if (!vfs_posix_range_is_legal(offset, size))
        return vfs_posix_fail(EOVERFLOW);
    while (size > 0) {
        const size_t step = size < VFS_POSIX_STEP ? size : VFS_POSIX_STEP;
        const ssize_t done = pread(vfs_posix_descriptor(file), bytes, step, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return vfs_posix_failed();
        if (done == 0)
            return vfs_posix_fail(VFS_POSIX_TOO_SHORT);
        bytes += done;
        offset += (uint64_t)done;
        size -= (size_t)done;
    }
    return OMENDB_OK;
}

static int vfs_posix_write(void *context, void *file, uint64_t offset, const void *buffer,
                           size_t size)
{
    const char *bytes = buffer;
    (void)context;
    if (!vfs_posix_range_is_legal(offset, size))
        return vfs_posix_fail(EFBIG);
    while (size > 0) {
        const size_t step = size < VFS_POSIX_STEP ? size : VFS_POSIX_STEP;
        const ssize_t done = pwrite(vfs_posix_descriptor(file), bytes, step, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return vfs_posix_failed();
        if (done == 0)
            return vfs_posix_fail(EIO);
        bytes += done;
        offset += (uint64_t)done;
        size -= (size_t)done;
    }
    return OMENDB_OK;
}

static int vfs_posix_truncate(void *context, void *file, uint64_t size)
{
    int failed;
    (void)context;
    if (!vfs_posix_range_is_legal(0, size))
        return vfs_posix_fail(EFBIG);
    do
        failed = ftruncate(vfs_posix_descriptor(file), (off_t)size);
    while (failed && errno == EINTR);
    return failed ? vfs_posix_failed() : OMENDB_OK;
}

/* Extends without reserving, for file systems that cannot reserve; never shortens. */
static int vfs_posix_extend(void *context, void *file, uint64_t size)
{
    uint64_t present = 0;
    const int status = vfs_posix_size(context, file, &present);
    if (status != OMENDB_OK || present >= size)
        return status;
    return vfs_posix_truncate(context, file, size);
}

/* Rejected: glibc's posix_fallocate, which writes into every block where the system call is not
 * supported, and races with writers while it does. */
static int vfs_posix_allocate(void *context, void *file, uint64_t size)
{
    if (!vfs_posix_range_is_legal(0, size))
        return vfs_posix_fail(EFBIG);
    if (size == 0)
        return OMENDB_OK;
#if defined(__linux__)
    int failed;
    do
        failed = fallocate(vfs_posix_descriptor(file), 0, 0, (off_t)size);
    while (failed && errno == EINTR);
    if (!failed)
        return OMENDB_OK;
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
        return vfs_posix_failed();
#elif defined(__APPLE__)
    fstore_t wanted = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, 0, 0};
    uint64_t present = 0;
    const int status = vfs_posix_size(context, file, &present);
    if (status != OMENDB_OK || present >= size)
        return status;
    wanted.fst_length = (off_t)(size - present);
    if (fcntl(vfs_posix_descriptor(file), F_PREALLOCATE, &wanted) != 0 && errno == ENOSPC)
        return vfs_posix_failed();
#endif
    return vfs_posix_extend(context, file, size);
}

static int vfs_posix_sync(void *context, void *file)
{
    const int descriptor = vfs_posix_descriptor(file);
    (void)context;
#if defined(__linux__)
    return fdatasync(descriptor) == 0 ? OMENDB_OK : vfs_posix_failed();
#elif defined(__APPLE__)
    if (fcntl(descriptor, F_FULLFSYNC) == 0)
        return OMENDB_OK;
    /* A file system without the command; fsync is then all that there is. */
    if (errno != ENOTSUP && errno != ENOTTY && errno != EINVAL)
        return vfs_posix_failed();
    return fsync(descriptor) == 0 ? OMENDB_OK : vfs_posix_failed();
#else
    return fsync(descriptor) == 0 ? OMENDB_OK : vfs_posix_failed();
#endif
}

/* ------------------------------------------------------------------------------------------------
 * mapping */

static int vfs_posix_map(void *context, void *file, uint64_t size, const void **address)
{
    uint64_t present = 0;
    void *mapped;
    const int status = vfs_posix_size(context, file, &present);
    *address = NULL;
    if (status != OMENDB_OK)
        return status;
    if (size == 0 || size > SIZE_MAX)
        return vfs_posix_fail(EINVAL);
    /* Pages past the end could be mapped, but touching them is a fault. */
    if (size > present)
        return vfs_posix_fail(VFS_POSIX_TOO_SHORT);
    mapped = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, vfs_posix_descriptor(file), 0);
    if (mapped == MAP_FAILED)
        return errno == ENODEV ? OMENDB_UNSUPPORTED : vfs_posix_failed();
    *address = mapped;
    return OMENDB_OK;
}

/* The system calls take no const; the pages stay readable only. */
static void vfs_posix_unmap(void *context, const void *address, uint64_t size)
{
    (void)context;
    munmap((void *)(uintptr_t)address, (size_t)size);
}

static void vfs_posix_advise(void *context, const void *address, uint64_t size, int advice)
{
    static const int system_advice[] = {
        [OMENDB_ADVISE_RANDOM] = MADV_RANDOM,
        [OMENDB_ADVISE_SEQUENTIAL] = MADV_SEQUENTIAL,
        [OMENDB_ADVISE_WILLNEED] = MADV_WILLNEED,
        [OMENDB_ADVISE_DONTNEED] = MADV_DONTNEED,
    };
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = (uintptr_t)address & ~(page - 1);
    (void)context;
    if (advice < OMENDB_ADVISE_RANDOM || advice > OMENDB_ADVISE_DONTNEED)
        return;
    madvise((void *)first, (size_t)((uintptr_t)address + size - first), system_advice[advice]);
}

/* ------------------------------------------------------------------------------------------------
 * locks and the clock */

static int vfs_posix_lock(void *context, void *file, int lock)
{
    const int descriptor = vfs_posix_descriptor(file);
    int failed;
    (void)context;
#if defined(__linux__)
    struct flock whole;
    memset(&whole, 0, sizeof whole);
    whole.l_type = lock == OMENDB_LOCK_EXCLUSIVE ? F_WRLCK
                   : lock == OMENDB_LOCK_SHARED  ? F_RDLCK
                                                 : F_UNLCK;
    whole.l_whence = SEEK_SET;
    failed = fcntl(descriptor, F_OFD_SETLK, &whole);
#else
    failed = flock(descriptor, (lock == OMENDB_LOCK_EXCLUSIVE ? LOCK_EX
                                : lock == OMENDB_LOCK_SHARED  ? LOCK_SH
                                                              : LOCK_UN) |
                                   LOCK_NB);
#endif
    if (!failed)
        return OMENDB_OK;
    return errno == EAGAIN || errno == EACCES || errno == EWOULDBLOCK ? OMENDB_BUSY
                                                                      : vfs_posix_failed();
}

static uint64_t vfs_posix_now_us(void *context)
{
    struct timespec now = {0, 0};
    (void)context;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

OMENDB_API const omendb_vfs *omendb_default_vfs(void)
{
    static const omendb_vfs vfs = {
        .struct_size = sizeof(omendb_vfs),
        .open_directory = vfs_posix_open_directory,
        .close_directory = vfs_posix_close_directory,
        .sync_directory = vfs_posix_sync_directory,
        .list = vfs_posix_list,
        .rename = vfs_posix_rename,
        .unlink = vfs_posix_unlink,
        .open = vfs_posix_open,
        .close = vfs_posix_close,
        .size = vfs_posix_size,
        .read = vfs_posix_read,
        .write = vfs_posix_write,
        .truncate = vfs_posix_truncate,
        .allocate = vfs_posix_allocate,
        .sync = vfs_posix_sync,
        .map = vfs_posix_map,
        .unmap = vfs_posix_unmap,
        .advise = vfs_posix_advise,
        .lock = vfs_posix_lock,
        .identity = vfs_posix_identity,
        .now_us = vfs_posix_now_us,
    };
    return &vfs;
}

#undef VFS_POSIX_STEP
#undef VFS_POSIX_TOO_SHORT
