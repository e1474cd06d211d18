/* crash_vfs.h: a file system in memory, behind omendb_vfs, that records what is done to it, can
 * fail any call, and can say what a disk may hold after the power went at any moment. Header only:
 * a program of tests is one file.
 *
 * THE MODEL of a crash, weaker than any file system we know, so that what survives it survives
 * them:
 * - A write is a run of sectors of 512 bytes, at multiples of 512 in the file. Until the file is
 * synced, a write is on the disk whole, not at all, or for any subset of its sectors (a prefix, a
 * suffix, a random choice); later writes to the same sectors may be there without earlier ones.
 * - The size of a file is a thing of its own: growth by writing, by allocate, and cuts by truncate
 *   are journalled in order, and since the last sync any prefix of them is on the disk, whether the
 *   bytes are or not. Bytes within the size that never arrived read as zero.
 * - A sync of a file makes its bytes and its size stable. It does not make its name stable.
 * - Names: create, rename and unlink since the last sync of the directory are there each or not,
 *   independently; those of one name keep their order. A rename is atomic for the new name, but
 *   the old one may be there still, as the directory has no journal.
 * - A sync of a directory makes its names stable, not the bytes of its files. Making a directory
 *   is stable when open_directory returns: that is in the contract of omendb_vfs.
 * - A sync that failed stabilises nothing, and the writes before it are never made stable by a
 *   later sync that succeeds (the kernel marks the pages clean); they may be on the disk by chance.
 *
 * SYNC SITES. Each sync gets a class in words, which tells the calls in the library apart: the kind
 * of file (its name without the number), for segments the directory (a copy by a backup is another
 * call), and whether it is the file's first sync; for a sync of a directory the last name that was
 * made in it. A replay may leave out a class, as if the library did not have the call; it then
 * knows where that makes a difference ("tainted").
 *
 * DEATH. crash_die_at stops the process in a call: later calls fail without any effect, until the
 * test has closed the handle and takes the faults away. The next opening finds all that was
 * written, though no sync confirmed it.
 *
 * FAULTS. The n-th call since crash_faults_begin, counting those in `kinds`, fails with a code and
 * errno, once or from then on; a failing write leaves its first half written (a short write).
 *
 * COPY ON WRITE. A file of an image in which nothing is on its way borrows the bytes of the replay,
 * which must outlive the image, until it is written to.
 *
 * LEAKS. open_handles and maps count what the library holds.
 *
 * Threads: every call takes one mutex. */
#ifndef OMENDB_TEST_CRASH_VFS_H
#define OMENDB_TEST_CRASH_VFS_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "omendb.h"
#include "support.h"

#define CRASH_NAME        48
#define CRASH_DIRECTORIES 32
#define CRASH_SITES       128
#define CRASH_SECTOR      512
#define CRASH_NO_SITE     UINT32_MAX

enum crash_kind {
    CRASH_WRITE,
    CRASH_SIZE,
    CRASH_SYNC,
    CRASH_CREATE,
    CRASH_RENAME,
    CRASH_UNLINK,
    CRASH_SYNC_DIRECTORY,
    CRASH_MAKE_DIRECTORY,
    CRASH_MARK
};

struct crash_event {
    enum crash_kind kind;
    uint32_t inode;
    uint32_t directory;
    uint32_t site;   /* of syncs */
    int failed;      /* of syncs */
    uint64_t offset; /* WRITE; SIZE: the new size; MARK: the value */
    uint64_t size;   /* WRITE; MARK: which mark */
    uint8_t *data;
    char name[CRASH_NAME], to[CRASH_NAME];
};

struct crash_inode {
    uint8_t *data;
    int borrowed; /* the bytes are somebody else's */
    uint64_t size, capacity;
    uint32_t references; /* names and open handles */
    uint32_t syncs;
    uint32_t shared_locks, exclusive_locks;
    uint32_t directory; /* where it was made */
    char kind[CRASH_NAME];
};

struct crash_entry {
    char name[CRASH_NAME];
    uint32_t inode;
};

struct crash_directory {
    char path[128];
    struct crash_entry *entries;
    size_t count, capacity;
    char since[CRASH_NAME + 16]; /* the last name that was made since the last sync */
};

/* Kinds of calls that may fail. */
enum {
    CRASH_CALL_READ = 1,  /* size, read, map, list, opening without creating */
    CRASH_CALL_WRITE = 2, /* write */
    CRASH_CALL_SPACE = 4, /* allocate, opening with creating, making a directory */
    CRASH_CALL_SYNC = 8,
    CRASH_CALL_OTHER = 16, /* rename, unlink, truncate, close, lock */
    CRASH_CALL_ALL = 31,
    CRASH_CALL_OPEN = 32, /* every opening, of files and directories, and list */
    CRASH_CALL_MAP = 64
};

struct crash_faults {
    int kinds;
    int dying;   /* the process is killed in that call: nothing has an effect any more */
    uint64_t at; /* 0: never */
    int forever;
    int code, reason;
    uint64_t calls, hits;
    const char *call; /* the one that failed last */
};

struct crash_fs {
    omendb_vfs vfs;
    pthread_mutex_t mutex;
    struct crash_inode *inodes;
    size_t inode_count, inode_capacity;
    struct crash_directory directories[CRASH_DIRECTORIES];
    size_t directory_count;
    int recording;
    struct crash_event *events;
    size_t event_count, event_capacity;
    char sites[CRASH_SITES][256];
    uint64_t site_hits[CRASH_SITES];
    uint32_t site_count;
    int can_map;
    struct crash_faults faults;
    uint64_t now;
    uint64_t identity;
    int64_t open_handles, maps;
    void (*before_sync)(void *argument); /* NULL, or called without the mutex */
    void *argument;
};

struct crash_handle {
    uint32_t inode;
    int lock;
    int writable;
    int created; /* by this open */
};

static inline void *crash_memory(void *memory, size_t size)
{
    void *grown = realloc(memory, size == 0 ? 1 : size);
    if (grown == NULL)
        abort();
    return grown;
}

/* ------------------------------------------------------------------------------------------------
 * the log of events */

static inline struct crash_event *crash_record(struct crash_fs *fs, enum crash_kind kind)
{
    static struct crash_event ignored;
    struct crash_event *event;
    memset(&ignored, 0, sizeof ignored);
    if (!fs->recording)
        return &ignored;
    if (fs->event_count == fs->event_capacity) {
        fs->event_capacity = fs->event_capacity == 0 ? 256 : fs->event_capacity * 2;
        fs->events = crash_memory(fs->events, fs->event_capacity * sizeof *fs->events);
    }
    event = &fs->events[fs->event_count++];
    memset(event, 0, sizeof *event);
    event->kind = kind;
    event->site = CRASH_NO_SITE;
    return event;
}

static inline uint32_t crash_site(struct crash_fs *fs, const char *text)
{
    for (uint32_t i = 0; i < fs->site_count; i++)
        if (strcmp(fs->sites[i], text) == 0) {
            fs->site_hits[i]++;
            return i;
        }
    if (fs->site_count == CRASH_SITES)
        return CRASH_NO_SITE;
    snprintf(fs->sites[fs->site_count], sizeof fs->sites[0], "%s", text);
    fs->site_hits[fs->site_count] = 1;
    return fs->site_count++;
}

/* "wal" of "wal-17". */
static inline void crash_kind_of(const char *name, char kind[CRASH_NAME])
{
    size_t length = strlen(name);
    while (length > 0 && name[length - 1] >= '0' && name[length - 1] <= '9')
        length--;
    if (length > 0 && length < strlen(name) && name[length - 1] == '-')
        length--;
    if (length >= CRASH_NAME)
        length = CRASH_NAME - 1;
    memcpy(kind, name, length);
    kind[length] = '\0';
}

static inline void crash_since(struct crash_directory *directory, const char *what,
                               const char *name)
{
    char kind[CRASH_NAME];
    crash_kind_of(name, kind);
    if (strcmp(kind, "LOCK") != 0)
        snprintf(directory->since, sizeof directory->since, "%s %s", what, kind);
}

/* Puts a number of the test's own into the log. */
static inline void crash_mark(struct crash_fs *fs, uint64_t which, uint64_t value)
{
    pthread_mutex_lock(&fs->mutex);
    struct crash_event *event = crash_record(fs, CRASH_MARK);
    event->size = which;
    event->offset = value;
    pthread_mutex_unlock(&fs->mutex);
}

/* 1 when this call is to fail; errno is then set. */
static inline int crash_fails_in(struct crash_fs *fs, int kind, const char *call)
{
    struct crash_faults *faults = &fs->faults;
    if (faults->kinds == 0 || (faults->kinds & kind) == 0)
        return 0;
    faults->calls++;
    if (faults->at == 0 || faults->calls < faults->at ||
        (faults->calls > faults->at && !faults->forever))
        return 0;
    faults->hits++;
    faults->call = call;
    errno = faults->reason;
    return 1;
}

#define crash_fails(fs, kind) crash_fails_in(fs, kind, __func__)

static inline void crash_faults_begin(struct crash_fs *fs, int kinds, uint64_t at, int forever,
                                      int code, int reason)
{
    const struct crash_faults faults = {kinds, 0, at, forever, code, reason, 0, 0, "none"};
    fs->faults = faults;
}

/* The process dies in the n-th call from now; what it did before stays, on its way to the disk. */
static inline void crash_die_at(struct crash_fs *fs, uint64_t at)
{
    crash_faults_begin(fs, CRASH_CALL_ALL, at, 1, OMENDB_IOERR, EIO);
    fs->faults.dying = 1;
}

/* ------------------------------------------------------------------------------------------------
 * inodes and names */

static inline uint32_t crash_new_inode(struct crash_fs *fs, const char *name)
{
    if (fs->inode_count == fs->inode_capacity) {
        fs->inode_capacity = fs->inode_capacity == 0 ? 64 : fs->inode_capacity * 2;
        fs->inodes = crash_memory(fs->inodes, fs->inode_capacity * sizeof *fs->inodes);
    }
    memset(&fs->inodes[fs->inode_count], 0, sizeof *fs->inodes);
    crash_kind_of(name, fs->inodes[fs->inode_count].kind);
    return (uint32_t)fs->inode_count++;
}

static inline void crash_free_bytes(struct crash_inode *inode)
{
    if (!inode->borrowed)
        free(inode->data);
}

/* Before the bytes are changed. */
static inline void crash_own(struct crash_inode *inode)
{
    if (!inode->borrowed)
        return;
    const uint8_t *data = inode->data;
    inode->capacity = inode->size + 1;
    inode->data = crash_memory(NULL, (size_t)inode->capacity);
    memcpy(inode->data, data, (size_t)inode->size);
    inode->borrowed = 0;
}

static inline void crash_borrow(struct crash_inode *inode, const struct crash_inode *from)
{
    inode->data = from->data;
    inode->size = inode->capacity = from->size;
    inode->borrowed = from->data != NULL;
}

static inline void crash_drop_inode(struct crash_fs *fs, uint32_t number)
{
    struct crash_inode *inode = &fs->inodes[number];
    if (--inode->references == 0) {
        crash_free_bytes(inode);
        inode->data = NULL;
        inode->size = inode->capacity = 0;
        inode->borrowed = 0;
    }
}

/* Bytes between the old and the new size become zero. */
static inline void crash_resize(struct crash_inode *inode, uint64_t size)
{
    crash_own(inode);
    if (size > inode->capacity) {
        inode->capacity = size < 4096 ? 4096 : size + size / 4;
        inode->data = crash_memory(inode->data, (size_t)inode->capacity);
    }
    if (size > inode->size)
        memset(inode->data + inode->size, 0, (size_t)(size - inode->size));
    inode->size = size;
}

static inline struct crash_entry *crash_find(struct crash_directory *directory, const char *name)
{
    for (size_t i = 0; i < directory->count; i++)
        if (strcmp(directory->entries[i].name, name) == 0)
            return &directory->entries[i];
    return NULL;
}

static inline void crash_link(struct crash_fs *fs, struct crash_directory *directory,
                              const char *name, uint32_t inode)
{
    struct crash_entry *entry = crash_find(directory, name);
    fs->inodes[inode].references++;
    if (entry != NULL) {
        crash_drop_inode(fs, entry->inode);
        entry->inode = inode;
        return;
    }
    if (directory->count == directory->capacity) {
        directory->capacity = directory->capacity == 0 ? 16 : directory->capacity * 2;
        directory->entries =
            crash_memory(directory->entries, directory->capacity * sizeof *directory->entries);
    }
    entry = &directory->entries[directory->count++];
    snprintf(entry->name, sizeof entry->name, "%s", name);
    entry->inode = inode;
}

static inline void crash_unlink_entry(struct crash_fs *fs, struct crash_directory *directory,
                                      struct crash_entry *entry)
{
    crash_drop_inode(fs, entry->inode);
    *entry = directory->entries[--directory->count];
}

static inline struct crash_directory *crash_directory(struct crash_fs *fs, const char *path)
{
    for (size_t i = 0; i < fs->directory_count; i++)
        if (strcmp(fs->directories[i].path, path) == 0)
            return &fs->directories[i];
    return NULL;
}

static inline uint32_t crash_directory_number(const struct crash_fs *fs,
                                              const struct crash_directory *directory)
{
    return (uint32_t)(directory - fs->directories);
}

/* ------------------------------------------------------------------------------------------------
 * the functions of the vfs: each locks, may fail, acts, records */

static inline struct crash_fs *crash_enter(void *context)
{
    struct crash_fs *fs = context;
    pthread_mutex_lock(&fs->mutex);
    return fs;
}

static inline int crash_leave(struct crash_fs *fs, int status, int reason)
{
    pthread_mutex_unlock(&fs->mutex);
    if (status != OMENDB_OK)
        errno = reason;
    return status;
}

static inline int crash_leave_failed(struct crash_fs *fs)
{
    return crash_leave(fs, fs->faults.code, fs->faults.reason);
}

static inline int crash_open_directory(void *context, const char *path, int create, void **out)
{
    struct crash_fs *fs = crash_enter(context);
    struct crash_directory *directory = crash_directory(fs, path);
    *out = NULL;
    if (crash_fails(fs, CRASH_CALL_OPEN |
                            (create && directory == NULL ? CRASH_CALL_SPACE : CRASH_CALL_READ)))
        return crash_leave_failed(fs);
    if (directory == NULL && !create)
        return crash_leave(fs, OMENDB_NOTFOUND, ENOENT);
    if (directory == NULL) {
        if (fs->directory_count == CRASH_DIRECTORIES)
            return crash_leave(fs, OMENDB_FULL, ENOSPC);
        directory = &fs->directories[fs->directory_count++];
        memset(directory, 0, sizeof *directory);
        snprintf(directory->path, sizeof directory->path, "%s", path);
        struct crash_event *event = crash_record(fs, CRASH_MAKE_DIRECTORY);
        event->directory = crash_directory_number(fs, directory);
    }
    *out = directory;
    fs->open_handles++;
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline void crash_close_directory(void *context, void *directory)
{
    struct crash_fs *fs = crash_enter(context);
    (void)directory;
    fs->open_handles--;
    crash_leave(fs, OMENDB_OK, 0);
}

static inline int crash_sync_directory(void *context, void *handle)
{
    struct crash_fs *fs = crash_enter(context);
    struct crash_directory *directory = handle;
    char text[256];
    snprintf(text, sizeof text, "directory, after %s",
             directory->since[0] == '\0' ? "nothing" : directory->since);
    const int fails = crash_fails(fs, CRASH_CALL_SYNC);
    if (fails && fs->faults.dying)
        return crash_leave_failed(fs);
    struct crash_event *event = crash_record(fs, CRASH_SYNC_DIRECTORY);
    event->directory = crash_directory_number(fs, directory);
    event->site = crash_site(fs, text);
    event->failed = fails;
    if (fails)
        return crash_leave_failed(fs);
    directory->since[0] = '\0';
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline int crash_list(void *context, void *handle,
                             int (*each)(void *argument, const char *name), void *argument)
{
    struct crash_fs *fs = crash_enter(context);
    struct crash_directory *directory = handle;
    int status = OMENDB_OK;
    if (crash_fails(fs, CRASH_CALL_OPEN | CRASH_CALL_READ))
        return crash_leave_failed(fs);
    const size_t count = directory->count;
    struct crash_entry *copy = crash_memory(NULL, count * sizeof *copy);
    if (count > 0)
        memcpy(copy, directory->entries, count * sizeof *copy);
    crash_leave(fs, OMENDB_OK, 0);
    for (size_t i = 0; i < count && status == OMENDB_OK; i++)
        status = each(argument, copy[i].name);
    free(copy);
    return status;
}

static inline int crash_rename(void *context, void *handle, const char *from, const char *to)
{
    struct crash_fs *fs = crash_enter(context);
    struct crash_directory *directory = handle;
    struct crash_entry *entry = crash_find(directory, from);
    if (crash_fails(fs, CRASH_CALL_OTHER))
        return crash_leave_failed(fs);
    if (entry == NULL)
        return crash_leave(fs, OMENDB_NOTFOUND, ENOENT);
    const uint32_t inode = entry->inode;
    struct crash_event *event = crash_record(fs, CRASH_RENAME);
    event->directory = crash_directory_number(fs, directory);
    event->inode = inode;
    snprintf(event->name, sizeof event->name, "%s", from);
    snprintf(event->to, sizeof event->to, "%s", to);
    crash_since(directory, "rename to", to);
    crash_link(fs, directory, to, inode);
    crash_unlink_entry(fs, directory, crash_find(directory, from));
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline int crash_unlink(void *context, void *handle, const char *name)
{
    struct crash_fs *fs = crash_enter(context);
    struct crash_directory *directory = handle;
    struct crash_entry *entry = crash_find(directory, name);
    if (crash_fails(fs, CRASH_CALL_OTHER))
        return crash_leave_failed(fs);
    if (entry == NULL)
        return crash_leave(fs, OMENDB_NOTFOUND, ENOENT);
    struct crash_event *event = crash_record(fs, CRASH_UNLINK);
    event->directory = crash_directory_number(fs, directory);
    event->inode = entry->inode;
    snprintf(event->name, sizeof event->name, "%s", name);
    crash_unlink_entry(fs, directory, entry);
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline uint32_t crash_create(struct crash_fs *fs, struct crash_directory *directory,
                                    const char *name)
{
    const uint32_t inode = crash_new_inode(fs, name);
    struct crash_event *event = crash_record(fs, CRASH_CREATE);
    event->directory = crash_directory_number(fs, directory);
    event->inode = inode;
    snprintf(event->name, sizeof event->name, "%s", name);
    fs->inodes[inode].directory = crash_directory_number(fs, directory);
    crash_since(directory, "create", name);
    crash_link(fs, directory, name, inode);
    return inode;
}

static inline int crash_open(void *context, void *handle, const char *name, int flags, void **out)
{
    struct crash_fs *fs = crash_enter(context);
    struct crash_directory *directory = handle;
    const struct crash_entry *entry = crash_find(directory, name);
    const int creates = (flags & OMENDB_OPEN_CREATE) != 0;
    *out = NULL;
    if (crash_fails(fs, CRASH_CALL_OPEN |
                            (creates && entry == NULL ? CRASH_CALL_SPACE : CRASH_CALL_READ)))
        return crash_leave_failed(fs);
    if (entry == NULL && !creates)
        return crash_leave(fs, OMENDB_NOTFOUND, ENOENT);
    if (entry != NULL && creates && (flags & OMENDB_OPEN_EXCLUSIVE))
        return crash_leave(fs, OMENDB_EXISTS, EEXIST);
    struct crash_handle *file = crash_memory(NULL, sizeof *file);
    file->inode = entry != NULL ? entry->inode : crash_create(fs, directory, name);
    file->lock = OMENDB_LOCK_NONE;
    file->created = entry == NULL;
    file->writable = (flags & OMENDB_OPEN_WRITE) != 0;
    fs->inodes[file->inode].references++;
    fs->open_handles++;
    *out = file;
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline void crash_unlock(struct crash_inode *inode, struct crash_handle *file)
{
    inode->shared_locks -= file->lock == OMENDB_LOCK_SHARED;
    inode->exclusive_locks -= file->lock == OMENDB_LOCK_EXCLUSIVE;
    file->lock = OMENDB_LOCK_NONE;
}

/* Also a close that fails gives the handle up, as that of POSIX does. */
static inline int crash_close(void *context, void *handle)
{
    struct crash_fs *fs = crash_enter(context);
    struct crash_handle *file = handle;
    crash_unlock(&fs->inodes[file->inode], file);
    crash_drop_inode(fs, file->inode);
    free(file);
    fs->open_handles--;
    if (crash_fails(fs, CRASH_CALL_OTHER))
        return crash_leave_failed(fs);
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline int crash_size(void *context, void *handle, uint64_t *size)
{
    struct crash_fs *fs = crash_enter(context);
    const struct crash_handle *file = handle;
    if (crash_fails(fs, CRASH_CALL_READ))
        return crash_leave_failed(fs);
    *size = fs->inodes[file->inode].size;
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline int crash_read(void *context, void *handle, uint64_t offset, void *buffer,
                             size_t size)
{
    struct crash_fs *fs = crash_enter(context);
    const struct crash_handle *file = handle;
    const struct crash_inode *inode = &fs->inodes[file->inode];
    if (crash_fails(fs, CRASH_CALL_READ))
        return crash_leave_failed(fs);
    if (offset > inode->size || size > inode->size - offset)
        return crash_leave(fs, OMENDB_IOERR, EIO);
    if (size > 0)
        memcpy(buffer, inode->data + offset, size);
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline void crash_set_size(struct crash_fs *fs, uint32_t number, uint64_t size)
{
    struct crash_event *event = crash_record(fs, CRASH_SIZE);
    event->inode = number;
    event->offset = size;
    crash_resize(&fs->inodes[number], size);
}

static inline void crash_put(struct crash_fs *fs, uint32_t number, uint64_t offset,
                             const void *buffer, size_t size)
{
    if (size == 0)
        return;
    if (offset + size > fs->inodes[number].size)
        crash_set_size(fs, number, offset + size);
    crash_own(&fs->inodes[number]);
    memcpy(fs->inodes[number].data + offset, buffer, size);
    if (!fs->recording)
        return;
    struct crash_event *event = crash_record(fs, CRASH_WRITE);
    event->inode = number;
    event->offset = offset;
    event->size = size;
    event->data = crash_memory(NULL, size);
    memcpy(event->data, buffer, size);
}

static inline int crash_write(void *context, void *handle, uint64_t offset, const void *buffer,
                              size_t size)
{
    struct crash_fs *fs = crash_enter(context);
    const struct crash_handle *file = handle;
    if (!file->writable)
        return crash_leave(fs, OMENDB_IOERR, EBADF);
    const int fails = crash_fails(fs, CRASH_CALL_WRITE);
    if (!fails || !fs->faults.dying || fs->faults.hits == 1)
        crash_put(fs, file->inode, offset, buffer, fails ? size / 2 : size);
    return fails ? crash_leave_failed(fs) : crash_leave(fs, OMENDB_OK, 0);
}

static inline int crash_truncate(void *context, void *handle, uint64_t size)
{
    struct crash_fs *fs = crash_enter(context);
    const struct crash_handle *file = handle;
    if (!file->writable)
        return crash_leave(fs, OMENDB_IOERR, EBADF);
    if (crash_fails(fs, CRASH_CALL_OTHER))
        return crash_leave_failed(fs);
    crash_set_size(fs, file->inode, size);
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline int crash_allocate(void *context, void *handle, uint64_t size)
{
    struct crash_fs *fs = crash_enter(context);
    const struct crash_handle *file = handle;
    if (!file->writable)
        return crash_leave(fs, OMENDB_IOERR, EBADF);
    if (crash_fails(fs, CRASH_CALL_SPACE))
        return crash_leave_failed(fs);
    if (size > fs->inodes[file->inode].size)
        crash_set_size(fs, file->inode, size);
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline int crash_sync(void *context, void *handle)
{
    const struct crash_fs *hooked = context;
    if (hooked->before_sync != NULL)
        hooked->before_sync(hooked->argument);
    struct crash_fs *fs = crash_enter(context);
    const struct crash_handle *file = handle;
    struct crash_inode *inode = &fs->inodes[file->inode];
    char text[256];
    char where[CRASH_NAME];
    crash_kind_of(fs->directories[inode->directory].path, where);
    snprintf(text, sizeof text, "%s%s%s, %s sync",
             strstr(inode->kind, "ovl") || strstr(inode->kind, "seg") ? where : "",
             strstr(inode->kind, "ovl") || strstr(inode->kind, "seg") ? "/" : "", inode->kind,
             !file->created      ? "another process's"
             : inode->syncs == 0 ? "first"
                                 : "later");
    inode->syncs++;
    const int fails = crash_fails(fs, CRASH_CALL_SYNC);
    if (fails && fs->faults.dying)
        return crash_leave_failed(fs);
    struct crash_event *event = crash_record(fs, CRASH_SYNC);
    event->inode = file->inode;
    event->site = crash_site(fs, text);
    event->failed = fails;
    return fails ? crash_leave_failed(fs) : crash_leave(fs, OMENDB_OK, 0);
}

/* A copy: it stays valid after close and unlink, and the sanitizer sees each byte past its end. */
static inline int crash_map(void *context, void *handle, uint64_t size, const void **address)
{
    struct crash_fs *fs = crash_enter(context);
    const struct crash_handle *file = handle;
    const struct crash_inode *inode = &fs->inodes[file->inode];
    *address = NULL;
    if (!fs->can_map)
        return crash_leave(fs, OMENDB_UNSUPPORTED, ENODEV);
    if (crash_fails(fs, CRASH_CALL_READ | CRASH_CALL_MAP))
        return crash_leave_failed(fs);
    if (size == 0 || size > inode->size)
        return crash_leave(fs, OMENDB_IOERR, EIO);
    void *copy = aligned_alloc(4096, (size_t)((size + 4095) / 4096 * 4096));
    if (copy == NULL)
        return crash_leave(fs, OMENDB_NOMEM, ENOMEM);
    memcpy(copy, inode->data, (size_t)size);
    fs->maps++;
    *address = copy;
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline void crash_unmap(void *context, const void *address, uint64_t size)
{
    struct crash_fs *fs = crash_enter(context);
    (void)size;
    fs->maps--;
    crash_leave(fs, OMENDB_OK, 0);
    free((void *)(uintptr_t)address);
}

static inline void crash_advise(void *context, const void *address, uint64_t size, int advice)
{
    (void)context;
    (void)address;
    (void)size;
    (void)advice;
}

static inline int crash_lock(void *context, void *handle, int lock)
{
    struct crash_fs *fs = crash_enter(context);
    struct crash_handle *file = handle;
    struct crash_inode *inode = &fs->inodes[file->inode];
    if (crash_fails(fs, CRASH_CALL_OTHER))
        return crash_leave_failed(fs);
    const uint32_t others_shared = inode->shared_locks - (file->lock == OMENDB_LOCK_SHARED);
    const uint32_t others_exclusive =
        inode->exclusive_locks - (file->lock == OMENDB_LOCK_EXCLUSIVE);
    if (lock != OMENDB_LOCK_NONE &&
        (others_exclusive > 0 || (lock == OMENDB_LOCK_EXCLUSIVE && others_shared > 0)))
        return crash_leave(fs, OMENDB_BUSY, EAGAIN);
    crash_unlock(inode, file);
    inode->shared_locks += lock == OMENDB_LOCK_SHARED;
    inode->exclusive_locks += lock == OMENDB_LOCK_EXCLUSIVE;
    file->lock = lock;
    return crash_leave(fs, OMENDB_OK, 0);
}

static inline int crash_identity(void *context, void *directory, char *text, size_t capacity)
{
    const struct crash_fs *fs = context;
    snprintf(text, capacity, "crash-%llu-%u", (unsigned long long)fs->identity,
             crash_directory_number(fs, directory));
    return OMENDB_OK;
}

/* Goes on by 20 us a call, so that a run depends on nothing outside. */
static inline uint64_t crash_now_us(void *context)
{
    struct crash_fs *fs = crash_enter(context);
    const uint64_t now = fs->now += 20;
    crash_leave(fs, OMENDB_OK, 0);
    return now;
}

/* ------------------------------------------------------------------------------------------------
 * making and freeing */

static inline struct crash_fs *crash_fs_create(int recording)
{
    static uint64_t made;
    const omendb_vfs vfs = {.struct_size = sizeof(omendb_vfs),
                            .open_directory = crash_open_directory,
                            .close_directory = crash_close_directory,
                            .sync_directory = crash_sync_directory,
                            .list = crash_list,
                            .rename = crash_rename,
                            .unlink = crash_unlink,
                            .open = crash_open,
                            .close = crash_close,
                            .size = crash_size,
                            .read = crash_read,
                            .write = crash_write,
                            .truncate = crash_truncate,
                            .allocate = crash_allocate,
                            .sync = crash_sync,
                            .map = crash_map,
                            .unmap = crash_unmap,
                            .advise = crash_advise,
                            .lock = crash_lock,
                            .identity = crash_identity,
                            .now_us = crash_now_us};
    struct crash_fs *fs = crash_memory(NULL, sizeof *fs);
    memset(fs, 0, sizeof *fs);
    fs->vfs = vfs;
    fs->vfs.context = fs;
    fs->recording = recording;
    fs->can_map = 1;
    fs->identity = ++made;
    pthread_mutex_init(&fs->mutex, NULL);
    return fs;
}

static inline void crash_fs_destroy(struct crash_fs *fs)
{
    if (fs == NULL)
        return;
    for (size_t i = 0; i < fs->inode_count; i++)
        crash_free_bytes(&fs->inodes[i]);
    for (size_t i = 0; i < fs->directory_count; i++)
        free(fs->directories[i].entries);
    for (size_t i = 0; i < fs->event_count; i++)
        free(fs->events[i].data);
    free(fs->inodes);
    free(fs->events);
    pthread_mutex_destroy(&fs->mutex);
    free(fs);
}

/* Adds a file with its bytes, unrecorded; for images and for tests that build a folder. */
static inline void crash_fs_add_file(struct crash_fs *fs, const char *path, const char *name,
                                     const void *data, size_t size)
{
    void *handle = NULL;
    const int recording = fs->recording;
    fs->recording = 0;
    if (crash_open_directory(fs, path, 1, &handle) != OMENDB_OK)
        abort();
    if (name != NULL)
        crash_put(fs, crash_create(fs, handle, name), 0, data, size);
    ((struct crash_directory *)handle)->since[0] = '\0';
    fs->recording = recording;
}

/* ------------------------------------------------------------------------------------------------
 * replay: what is stable, and what is on its way, after the first `position` events */

struct crash_disk_file {
    struct crash_inode stable;
    size_t *pending;       /* WRITE and SIZE events not synced, in order */
    unsigned char *orphan; /* 1: a sync of it failed, no later sync will do it */
    size_t count, capacity;
    int tainted; /* a sync was left out and none came since */
};

struct crash_disk_directory {
    int made, tainted;
    struct crash_entry *entries;
    size_t count, capacity;
    size_t *pending;
    size_t pending_count, pending_capacity;
};

struct crash_replay {
    const struct crash_fs *fs; /* its log */
    size_t position;
    struct crash_disk_file *files;
    struct crash_disk_directory directories[CRASH_DIRECTORIES];
    size_t directory_count;
    const char *omitted; /* class of syncs left out, or NULL */
    int tainted;         /* files and directories that are */
};

/* `start`: the state before the first event, as an image made it; NULL: nothing. All of it stable.
 */
static inline void crash_replay_begin(struct crash_replay *replay, const struct crash_fs *fs,
                                      const struct crash_fs *start, const char *omitted)
{
    memset(replay, 0, sizeof *replay);
    replay->fs = fs;
    replay->omitted = omitted;
    replay->files = crash_memory(NULL, (fs->inode_count + 1) * sizeof *replay->files);
    memset(replay->files, 0, (fs->inode_count + 1) * sizeof *replay->files);
    for (size_t i = 0; start != NULL && i < start->inode_count; i++)
        if (start->inodes[i].size > 0) {
            crash_resize(&replay->files[i].stable, start->inodes[i].size);
            memcpy(replay->files[i].stable.data, start->inodes[i].data,
                   (size_t)start->inodes[i].size);
        }
    for (size_t i = 0; start != NULL && i < start->directory_count; i++) {
        const struct crash_directory *from = &start->directories[i];
        struct crash_disk_directory *to = &replay->directories[i];
        to->made = 1;
        to->count = to->capacity = from->count;
        to->entries = crash_memory(NULL, from->count * sizeof *to->entries);
        if (from->count > 0)
            memcpy(to->entries, from->entries, from->count * sizeof *to->entries);
    }
}

static inline void crash_replay_end(struct crash_replay *replay)
{
    for (size_t i = 0; i < replay->fs->inode_count; i++) {
        free(replay->files[i].stable.data);
        free(replay->files[i].pending);
        free(replay->files[i].orphan);
    }
    for (size_t i = 0; i < CRASH_DIRECTORIES; i++) {
        free(replay->directories[i].entries);
        free(replay->directories[i].pending);
    }
    free(replay->files);
}

static inline void crash_apply(struct crash_inode *inode, const struct crash_event *event)
{
    if (event->kind == CRASH_SIZE) {
        crash_resize(inode, event->offset);
        return;
    }
    if (event->offset + event->size > inode->size)
        crash_resize(inode, event->offset + event->size);
    memcpy(inode->data + event->offset, event->data, (size_t)event->size);
}

static inline void crash_disk_set(struct crash_disk_directory *directory, const char *name,
                                  uint32_t inode)
{
    size_t i = 0;
    while (i < directory->count && strcmp(directory->entries[i].name, name) != 0)
        i++;
    if (i == directory->count) {
        if (directory->count == directory->capacity) {
            directory->capacity = directory->capacity * 2 + 8;
            directory->entries =
                crash_memory(directory->entries, directory->capacity * sizeof *directory->entries);
        }
        directory->count++;
        snprintf(directory->entries[i].name, CRASH_NAME, "%s", name);
    }
    directory->entries[i].inode = inode;
}

static inline void crash_disk_clear(struct crash_disk_directory *directory, const char *name,
                                    uint32_t inode)
{
    for (size_t i = 0; i < directory->count; i++)
        if (strcmp(directory->entries[i].name, name) == 0 && directory->entries[i].inode == inode) {
            directory->entries[i] = directory->entries[--directory->count];
            return;
        }
}

static inline void crash_apply_name(struct crash_disk_directory *directory,
                                    const struct crash_event *event, int keep_old)
{
    if (event->kind == CRASH_CREATE)
        crash_disk_set(directory, event->name, event->inode);
    if (event->kind == CRASH_RENAME)
        crash_disk_set(directory, event->to, event->inode);
    if (event->kind == CRASH_UNLINK || (event->kind == CRASH_RENAME && !keep_old))
        crash_disk_clear(directory, event->name, event->inode);
}

static inline int crash_replay_omits(struct crash_replay *replay, const struct crash_event *event)
{
    if (replay->omitted == NULL || event->site == CRASH_NO_SITE ||
        strcmp(replay->fs->sites[event->site], replay->omitted) != 0)
        return 0;
    return 1;
}

static inline void crash_replay_sync(struct crash_replay *replay, const struct crash_event *event)
{
    struct crash_disk_file *file = &replay->files[event->inode];
    size_t kept = 0;
    if (crash_replay_omits(replay, event)) {
        replay->tainted += !file->tainted;
        file->tainted = 1;
        return;
    }
    replay->tainted -= file->tainted;
    file->tainted = 0;
    for (size_t i = 0; i < file->count; i++) {
        if (event->failed)
            file->orphan[i] = 1;
        if (!file->orphan[i]) {
            crash_apply(&file->stable, &replay->fs->events[file->pending[i]]);
            continue;
        }
        file->orphan[kept] = 1;
        file->pending[kept++] = file->pending[i];
    }
    file->count = kept;
}

static inline void crash_replay_sync_directory(struct crash_replay *replay,
                                               const struct crash_event *event)
{
    struct crash_disk_directory *directory = &replay->directories[event->directory];
    if (event->failed)
        return;
    if (crash_replay_omits(replay, event)) {
        replay->tainted += !directory->tainted;
        directory->tainted = 1;
        return;
    }
    replay->tainted -= directory->tainted;
    directory->tainted = 0;
    for (size_t i = 0; i < directory->pending_count; i++)
        crash_apply_name(directory, &replay->fs->events[directory->pending[i]], 0);
    directory->pending_count = 0;
}

static inline void crash_replay_pend(struct crash_disk_file *file, size_t event)
{
    if (file->count == file->capacity) {
        file->capacity = file->capacity * 2 + 8;
        file->pending = crash_memory(file->pending, file->capacity * sizeof *file->pending);
        file->orphan = crash_memory(file->orphan, file->capacity);
    }
    file->pending[file->count] = event;
    file->orphan[file->count++] = 0;
}

static inline void crash_replay_pend_name(struct crash_disk_directory *directory, size_t event)
{
    if (directory->pending_count == directory->pending_capacity) {
        directory->pending_capacity = directory->pending_capacity * 2 + 8;
        directory->pending = crash_memory(directory->pending,
                                          directory->pending_capacity * sizeof *directory->pending);
    }
    directory->pending[directory->pending_count++] = event;
}

/* One event further; returns it. */
static inline const struct crash_event *crash_replay_step(struct crash_replay *replay)
{
    const size_t index = replay->position++;
    const struct crash_event *event = &replay->fs->events[index];
    switch (event->kind) {
    case CRASH_WRITE:
    case CRASH_SIZE:
        crash_replay_pend(&replay->files[event->inode], index);
        break;
    case CRASH_SYNC:
        crash_replay_sync(replay, event);
        break;
    case CRASH_CREATE:
    case CRASH_RENAME:
    case CRASH_UNLINK:
        crash_replay_pend_name(&replay->directories[event->directory], index);
        break;
    case CRASH_SYNC_DIRECTORY:
        crash_replay_sync_directory(replay, event);
        break;
    case CRASH_MAKE_DIRECTORY:
        replay->directories[event->directory].made = 1;
        break;
    case CRASH_MARK:
        break;
    }
    return event;
}

/* ------------------------------------------------------------------------------------------------
 * images */

/* How much of what is on its way has arrived. */
enum crash_luck {
    CRASH_NOTHING,    /* none of it */
    CRASH_EVERYTHING, /* all of it: what kill -9 leaves */
    CRASH_RANDOM,     /* each by the toss of a coin, torn at times */
    CRASH_ALL_BUT_ONE,
    CRASH_ONLY_ONE,
    CRASH_NAMES_ONLY, /* names and sizes, no bytes: what metadata journals without ordering do */
    CRASH_BYTES_ONLY, /* bytes, no names */
    CRASH_LUCKS
};

struct crash_choice {
    enum crash_luck luck;
    size_t one; /* index of the one, over all that is on its way */
    size_t next;
    struct support_random *random;
};

/* 0: not there, 1: whole, 2: torn */
static inline int crash_choose(struct crash_choice *choice, enum crash_kind kind)
{
    const size_t index = choice->next++;
    const int is_name = kind != CRASH_WRITE && kind != CRASH_SIZE;
    switch (choice->luck) {
    case CRASH_NOTHING:
        return 0;
    case CRASH_EVERYTHING:
        return 1;
    case CRASH_ALL_BUT_ONE:
        return index != choice->one;
    case CRASH_ONLY_ONE:
        return index == choice->one;
    case CRASH_NAMES_ONLY:
        return kind != CRASH_WRITE;
    case CRASH_BYTES_ONLY:
        return !is_name;
    default:
        return (int)support_below(choice->random, 3);
    }
}

/* Writes the sectors of the event that arrived. */
static inline void crash_tear(struct crash_inode *inode, const struct crash_event *event,
                              struct support_random *random)
{
    const uint64_t first = event->offset / CRASH_SECTOR;
    const uint64_t end = (event->offset + event->size + CRASH_SECTOR - 1) / CRASH_SECTOR;
    const uint64_t how = support_below(random, 3);
    const uint64_t cut = first + support_below(random, end - first + 1);
    for (uint64_t sector = first; sector < end; sector++) {
        const int there = how == 0   ? sector < cut
                          : how == 1 ? sector >= cut
                                     : (int)support_below(random, 2);
        uint64_t from = sector * CRASH_SECTOR, to = from + CRASH_SECTOR;
        if (from < event->offset)
            from = event->offset;
        if (to > event->offset + event->size)
            to = event->offset + event->size;
        if (to > inode->size)
            to = inode->size;
        if (there && from < to)
            memcpy(inode->data + from, event->data + (from - event->offset), (size_t)(to - from));
    }
}

/* Sizes are a prefix of what was done to the size; bytes beyond are not seen. */
static inline void crash_image_file(const struct crash_replay *replay,
                                    const struct crash_disk_file *file, struct crash_inode *inode,
                                    struct crash_choice *choice)
{
    int sizes_go_on = 1;
    crash_borrow(inode, &file->stable);
    for (size_t i = 0; i < file->count; i++) {
        const struct crash_event *event = &replay->fs->events[file->pending[i]];
        const int chosen = crash_choose(choice, event->kind);
        if (event->kind == CRASH_SIZE) {
            sizes_go_on = sizes_go_on && chosen != 0;
            if (sizes_go_on)
                crash_resize(inode, event->offset);
            continue;
        }
        if (chosen == 0 || event->offset >= inode->size)
            continue;
        crash_own(inode);
        if (chosen == 1 && event->offset + event->size <= inode->size)
            memcpy(inode->data + event->offset, event->data, (size_t)event->size);
        else
            crash_tear(inode, event, choice->random);
    }
}

/* Number of things on their way. */
static inline size_t crash_replay_pending(const struct crash_replay *replay)
{
    size_t pending = 0;
    for (size_t i = 0; i < replay->fs->inode_count; i++)
        pending += replay->files[i].count;
    for (size_t i = 0; i < CRASH_DIRECTORIES; i++)
        pending += replay->directories[i].pending_count;
    return pending;
}

static inline void crash_image_directory(const struct crash_replay *replay, size_t number,
                                         struct crash_fs *image, struct crash_choice *choice)
{
    const struct crash_disk_directory *from = &replay->directories[number];
    struct crash_disk_directory names = {0};
    struct crash_directory *to = &image->directories[number];
    for (size_t i = 0; i < from->count; i++)
        crash_disk_set(&names, from->entries[i].name, from->entries[i].inode);
    for (size_t i = 0; i < from->pending_count; i++) {
        const struct crash_event *event = &replay->fs->events[from->pending[i]];
        const int chosen = crash_choose(choice, event->kind);
        if (chosen != 0)
            crash_apply_name(&names, event, chosen == 2);
    }
    snprintf(to->path, sizeof to->path, "%s", replay->fs->directories[number].path);
    for (size_t i = 0; i < names.count; i++)
        crash_link(image, to, names.entries[i].name, names.entries[i].inode);
    image->directory_count = number + 1;
    free(names.entries);
}

/* A disk as the crash may leave it; the inodes keep their numbers, those without a name are empty.
 * Recording is on. */
static inline struct crash_fs *crash_image(const struct crash_replay *replay, enum crash_luck luck,
                                           struct support_random *random)
{
    struct crash_fs *image = crash_fs_create(1);
    const size_t pending = crash_replay_pending(replay);
    struct crash_choice choice = {luck, 0, 0, random};
    choice.one = pending == 0 ? 0 : (size_t)support_below(random, pending);
    for (size_t i = 0; i < replay->fs->inode_count; i++) {
        const uint32_t inode = crash_new_inode(image, "");
        memcpy(image->inodes[inode].kind, replay->fs->inodes[i].kind, CRASH_NAME);
        image->inodes[inode].directory = replay->fs->inodes[i].directory;
    }
    for (size_t i = 0; i < CRASH_DIRECTORIES && replay->directories[i].made; i++)
        crash_image_directory(replay, i, image, &choice);
    for (size_t i = 0; i < replay->fs->inode_count; i++)
        if (image->inodes[i].references > 0)
            crash_image_file(replay, &replay->files[i], &image->inodes[i], &choice);
    return image;
}

/* Nothing of it is borrowed any more: it may outlive the replay. */
static inline void crash_fs_own(struct crash_fs *fs)
{
    for (size_t i = 0; i < fs->inode_count; i++)
        crash_own(&fs->inodes[i]);
}

/* The bytes of a copied file. Borrowed ones belong to a replay, which outlives both. */
static inline void crash_copy_bytes(struct crash_inode *copy, const struct crash_inode *inode,
                                    int borrow)
{
    if (borrow || inode->borrowed) {
        crash_borrow(copy, inode);
    } else if (inode->size > 0) {
        crash_resize(copy, inode->size);
        memcpy(copy->data, inode->data, (size_t)inode->size);
    }
}

/* `borrow`: the copy goes before anything is done to `fs`, and takes its bytes from there. */
static inline struct crash_fs *crash_fs_copy_or_borrow(const struct crash_fs *fs, int borrow)
{
    struct crash_fs *copy = crash_fs_create(1);
    for (size_t i = 0; i < fs->inode_count; i++) {
        const uint32_t inode = crash_new_inode(copy, "");
        memcpy(copy->inodes[inode].kind, fs->inodes[i].kind, CRASH_NAME);
        copy->inodes[inode].directory = fs->inodes[i].directory;
        crash_copy_bytes(&copy->inodes[inode], &fs->inodes[i], borrow);
    }
    for (size_t i = 0; i < fs->directory_count; i++) {
        snprintf(copy->directories[i].path, sizeof copy->directories[i].path, "%s",
                 fs->directories[i].path);
        for (size_t j = 0; j < fs->directories[i].count; j++)
            crash_link(copy, &copy->directories[i], fs->directories[i].entries[j].name,
                       fs->directories[i].entries[j].inode);
        copy->directory_count = i + 1;
    }
    return copy;
}

/* The same files, all stable: what a new process finds when only the old one died. */
static inline struct crash_fs *crash_fs_copy(const struct crash_fs *fs)
{
    return crash_fs_copy_or_borrow(fs, 0);
}

#endif
