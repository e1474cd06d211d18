/* fuzz.h: what the fuzz targets share: a file system in memory, the form of an input that holds
 * files, the repair of their checksums, and the ways into a target.
 *
 * A target is a file fuzz_<target>.c, which ends with FUZZ_TARGET. With -DFUZZ_ENGINE=1 it is
 * linked with libFuzzer; without, it has a main() that runs each file and each folder of files
 * given. In both builds `fuzz_<target> --seed-corpus FOLDER` writes its seeds, made of real
 * databases.
 *
 * AN INPUT OF FILES: a byte of choices for the target, then files: u8 kind, u8 number, runs of u16
 * bytes that follow and u16 zeros in units of 8, up to a run of neither. So a segment, which is
 * zeros mostly, is some 2 KB. Any bytes are an input.
 *
 * The targets use internal functions. They are compiled with the headers of amalgamation/ and
 * linked with omendb.c that was compiled with -DOMENDB_INTERNAL=; test_fuzz_corpus.c collects all.
 *
 * Invariant: one input, one behaviour: the clock is a counter, there are no threads, and chance
 * comes from the input. But ids of logs are random. */
#ifndef OMENDB_FUZZ_H
#define OMENDB_FUZZ_H

#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1
#endif

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "omendb.h"
#include "amalgamation/checksum.h"
#include "amalgamation/database.h"
#include "amalgamation/format.h"
#include "amalgamation/manifest.h"
#include "amalgamation/segment.h"
#include "amalgamation/storage.h"
#include "amalgamation/wal.h"

#define FUZZ_INODES     64
#define FUZZ_BESIDE     "beside" /* path of the second directory */
#define FUZZ_FILES      12
#define FUZZ_FILE_BYTES ((size_t)1 << 19)
#define FUZZ_DISK_BYTES ((uint64_t)64 << 20) /* of one file that a database writes */
/* One allocation beyond this is a number from a file that nobody bounded. */
#define FUZZ_ALLOCATION ((size_t)256 << 20)

/* ------------------------------------------------------------------------------------------------
 * what must hold */

static inline void fuzz_fail(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: not true: %s (last error: %s)\n", file, line, what, omendb_errmsg());
    abort();
}

#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fuzz_fail(__FILE__, __LINE__, #condition);                                             \
    } while (0)

/* A code that the header knows, never that a right call is a wrong one; with a sentence. */
static inline int fuzz_sane(int code)
{
    FUZZ_CHECK(code >= OMENDB_OK && code <= OMENDB_QUOTA && code != OMENDB_MISUSE);
    FUZZ_CHECK(code == OMENDB_OK || code == OMENDB_DONE || omendb_errmsg()[0] != '\0');
    return code;
}

/* splitmix64 */
static inline uint64_t fuzz_next(uint64_t *state)
{
    uint64_t value = *state += UINT64_C(0x9e3779b97f4a7c15);
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

static inline uint32_t fuzz_below(uint64_t *state, uint64_t below)
{
    return (uint32_t)(fuzz_next(state) % below);
}

static inline void *fuzz_memory(void *memory, size_t size)
{
    void *moved = realloc(memory, size == 0 ? 1 : size);
    if (moved == NULL)
        abort();
    return moved;
}

/* ------------------------------------------------------------------------------------------------
 * the disk: one directory, and where it is asked for another one beside it. A mapping is a copy of
 * exactly its size, so that the sanitizer sees what is read behind it. Space that was allocated and
 * not written costs nothing. */

struct fuzz_inode {
    char name[STORAGE_NAME_BYTES];
    uint8_t *bytes;
    uint64_t stored; /* bytes that there are; zeros follow up to size */
    uint64_t capacity, size;
    uint32_t handles, shared, exclusive;
    int linked;
};

struct fuzz_handle {
    struct fuzz_disk *disk;
    struct fuzz_inode *inode;
    int flags, lock;
};

struct fuzz_disk {
    omendb_vfs vfs;
    struct fuzz_inode *inodes[FUZZ_INODES];
    size_t count;
    struct fuzz_disk *beside; /* what is at FUZZ_BESIDE; NULL: nothing */
    uint64_t clock_us, mappings, handles;
};

static inline int fuzz_errno(int code, int reason)
{
    errno = reason;
    return code;
}

static inline struct fuzz_inode *fuzz_find(struct fuzz_disk *disk, const char *name)
{
    for (size_t i = 0; i < disk->count; i++)
        if (disk->inodes[i]->linked && strcmp(disk->inodes[i]->name, name) == 0)
            return disk->inodes[i];
    return NULL;
}

static inline void fuzz_forget_inode(struct fuzz_disk *disk, struct fuzz_inode *inode)
{
    if (inode->linked || inode->handles != 0)
        return;
    for (size_t i = 0; i < disk->count; i++)
        if (disk->inodes[i] == inode)
            disk->inodes[i--] = disk->inodes[--disk->count];
    free(inode->bytes);
    free(inode);
}

static inline struct fuzz_inode *fuzz_new_inode(struct fuzz_disk *disk, const char *name)
{
    if (disk->count == FUZZ_INODES || strlen(name) >= sizeof disk->inodes[0]->name)
        return NULL;
    struct fuzz_inode *inode = fuzz_memory(NULL, sizeof *inode);
    memset(inode, 0, sizeof *inode);
    memcpy(inode->name, name, strlen(name) + 1);
    inode->linked = 1;
    disk->inodes[disk->count++] = inode;
    return inode;
}

static inline void fuzz_store(struct fuzz_inode *inode, uint64_t offset, const void *data,
                              size_t size)
{
    uint64_t end = offset + size;
    if (end > inode->capacity) {
        inode->capacity = end + end / 2 + 64;
        inode->bytes = fuzz_memory(inode->bytes, (size_t)inode->capacity);
    }
    if (offset > inode->stored)
        memset(inode->bytes + inode->stored, 0, (size_t)(offset - inode->stored));
    if (size > 0)
        memcpy(inode->bytes + offset, data, size);
    inode->stored = end > inode->stored ? end : inode->stored;
    inode->size = inode->stored > inode->size ? inode->stored : inode->size;
}

static inline void fuzz_load(const struct fuzz_inode *inode, uint64_t offset, void *out,
                             size_t size)
{
    uint64_t have = offset < inode->stored ? inode->stored - offset : 0;
    size_t copied = have < size ? (size_t)have : size;
    if (copied > 0)
        memcpy(out, inode->bytes + offset, copied);
    memset((uint8_t *)out + copied, 0, size - copied);
}

static int fuzz_vfs_open_directory(void *context, const char *path, int create, void **directory)
{
    struct fuzz_disk *disk = context;
    const size_t length = strlen(FUZZ_BESIDE);
    const int beside = disk->beside != NULL && strncmp(path, FUZZ_BESIDE, length) == 0;
    (void)create;
    *directory = beside ? disk->beside : disk;
    if (!beside || path[length] == '\0')
        return OMENDB_OK;
    *directory = NULL; /* above it there is nothing */
    return fuzz_errno(OMENDB_NOTFOUND, ENOENT);
}

static void fuzz_vfs_close_directory(void *context, void *directory)
{
    (void)context;
    (void)directory;
}

static int fuzz_vfs_sync(void *context, void *handle)
{
    (void)context;
    (void)handle;
    return OMENDB_OK;
}

static int fuzz_vfs_list(void *context, void *directory,
                         int (*each)(void *argument, const char *name), void *argument)
{
    struct fuzz_disk *disk = directory;
    int code = OMENDB_OK;
    (void)context;
    for (size_t i = 0; i < disk->count && code == OMENDB_OK; i++)
        if (disk->inodes[i]->linked)
            code = each(argument, disk->inodes[i]->name);
    return code;
}

static int fuzz_vfs_rename(void *context, void *directory, const char *from, const char *to)
{
    struct fuzz_inode *inode = fuzz_find(directory, from), *replaced = fuzz_find(directory, to);
    (void)context;
    if (inode == NULL || strlen(to) >= sizeof inode->name)
        return fuzz_errno(OMENDB_NOTFOUND, ENOENT);
    if (replaced != NULL && replaced != inode) {
        replaced->linked = 0;
        fuzz_forget_inode(directory, replaced);
    }
    memcpy(inode->name, to, strlen(to) + 1);
    return OMENDB_OK;
}

static int fuzz_vfs_unlink(void *context, void *directory, const char *name)
{
    struct fuzz_inode *inode = fuzz_find(directory, name);
    (void)context;
    if (inode == NULL)
        return fuzz_errno(OMENDB_NOTFOUND, ENOENT);
    inode->linked = 0;
    fuzz_forget_inode(directory, inode);
    return OMENDB_OK;
}

static int fuzz_vfs_open(void *context, void *directory, const char *name, int flags, void **out)
{
    struct fuzz_disk *disk = directory;
    struct fuzz_inode *inode = fuzz_find(disk, name);
    (void)context;
    *out = NULL;
    if (inode != NULL && (flags & OMENDB_OPEN_CREATE) && (flags & OMENDB_OPEN_EXCLUSIVE))
        return fuzz_errno(OMENDB_EXISTS, EEXIST);
    if (inode == NULL && !(flags & OMENDB_OPEN_CREATE))
        return fuzz_errno(OMENDB_NOTFOUND, ENOENT);
    if (inode == NULL)
        inode = fuzz_new_inode(disk, name);
    if (inode == NULL)
        return fuzz_errno(OMENDB_FULL, ENOSPC);
    struct fuzz_handle *handle = fuzz_memory(NULL, sizeof *handle);
    *handle = (struct fuzz_handle){disk, inode, flags, OMENDB_LOCK_NONE};
    inode->handles++;
    disk->handles++;
    *out = handle;
    return OMENDB_OK;
}

static int fuzz_vfs_lock(void *context, void *file, int lock)
{
    struct fuzz_handle *handle = file;
    struct fuzz_inode *inode = handle->inode;
    (void)context;
    inode->shared -= handle->lock == OMENDB_LOCK_SHARED;
    inode->exclusive -= handle->lock == OMENDB_LOCK_EXCLUSIVE;
    int taken = lock != OMENDB_LOCK_NONE &&
                (inode->exclusive != 0 || (lock == OMENDB_LOCK_EXCLUSIVE && inode->shared != 0));
    if (!taken)
        handle->lock = lock;
    inode->shared += handle->lock == OMENDB_LOCK_SHARED;
    inode->exclusive += handle->lock == OMENDB_LOCK_EXCLUSIVE;
    return taken ? fuzz_errno(OMENDB_BUSY, EAGAIN) : OMENDB_OK;
}

static int fuzz_vfs_close(void *context, void *file)
{
    struct fuzz_handle *handle = file;
    fuzz_vfs_lock(context, file, OMENDB_LOCK_NONE);
    handle->inode->handles--;
    handle->disk->handles--;
    fuzz_forget_inode(handle->disk, handle->inode);
    free(handle);
    return OMENDB_OK;
}

static int fuzz_vfs_size(void *context, void *file, uint64_t *size)
{
    (void)context;
    *size = ((struct fuzz_handle *)file)->inode->size;
    return OMENDB_OK;
}

static int fuzz_vfs_read(void *context, void *file, uint64_t offset, void *buffer, size_t size)
{
    const struct fuzz_inode *inode = ((struct fuzz_handle *)file)->inode;
    (void)context;
    if (offset > inode->size || size > inode->size - offset)
        return fuzz_errno(OMENDB_IOERR, EIO);
    fuzz_load(inode, offset, buffer, size);
    return OMENDB_OK;
}

static int fuzz_vfs_write(void *context, void *file, uint64_t offset, const void *buffer,
                          size_t size)
{
    (void)context;
    if (offset > FUZZ_DISK_BYTES || size > FUZZ_DISK_BYTES - offset)
        return fuzz_errno(OMENDB_FULL, ENOSPC);
    fuzz_store(((struct fuzz_handle *)file)->inode, offset, buffer, size);
    return OMENDB_OK;
}

static int fuzz_vfs_truncate(void *context, void *file, uint64_t size)
{
    struct fuzz_inode *inode = ((struct fuzz_handle *)file)->inode;
    (void)context;
    inode->size = size;
    inode->stored = inode->stored > size ? size : inode->stored;
    return OMENDB_OK;
}

static int fuzz_vfs_allocate(void *context, void *file, uint64_t size)
{
    struct fuzz_inode *inode = ((struct fuzz_handle *)file)->inode;
    (void)context;
    if (size > FUZZ_DISK_BYTES)
        return fuzz_errno(OMENDB_FULL, ENOSPC);
    inode->size = size > inode->size ? size : inode->size;
    return OMENDB_OK;
}

static int fuzz_vfs_map(void *context, void *file, uint64_t size, const void **address)
{
    const struct fuzz_inode *inode = ((struct fuzz_handle *)file)->inode;
    void *copy = NULL;
    *address = NULL;
    if (size == 0 || size > inode->size)
        return fuzz_errno(OMENDB_IOERR, EINVAL);
    if (posix_memalign(&copy, 64, (size_t)size) != 0)
        return fuzz_errno(OMENDB_NOMEM, ENOMEM);
    fuzz_load(inode, 0, copy, (size_t)size);
    ((struct fuzz_disk *)context)->mappings++;
    *address = copy;
    return OMENDB_OK;
}

static void fuzz_vfs_unmap(void *context, const void *address, uint64_t size)
{
    (void)size;
    ((struct fuzz_disk *)context)->mappings--;
    free((void *)(uintptr_t)address);
}

static int fuzz_vfs_identity(void *context, void *directory, char *text, size_t capacity)
{
    (void)context;
    snprintf(text, capacity, "%p", directory);
    return OMENDB_OK;
}

static uint64_t fuzz_vfs_now_us(void *context)
{
    return ((struct fuzz_disk *)context)->clock_us += 10;
}

static inline void fuzz_disk_begin(struct fuzz_disk *disk)
{
    memset(disk, 0, sizeof *disk);
    disk->vfs = (omendb_vfs){.struct_size = sizeof disk->vfs,
                             .context = disk,
                             .open_directory = fuzz_vfs_open_directory,
                             .close_directory = fuzz_vfs_close_directory,
                             .sync_directory = fuzz_vfs_sync,
                             .list = fuzz_vfs_list,
                             .rename = fuzz_vfs_rename,
                             .unlink = fuzz_vfs_unlink,
                             .open = fuzz_vfs_open,
                             .close = fuzz_vfs_close,
                             .size = fuzz_vfs_size,
                             .read = fuzz_vfs_read,
                             .write = fuzz_vfs_write,
                             .truncate = fuzz_vfs_truncate,
                             .allocate = fuzz_vfs_allocate,
                             .sync = fuzz_vfs_sync,
                             .map = fuzz_vfs_map,
                             .unmap = fuzz_vfs_unmap,
                             .lock = fuzz_vfs_lock,
                             .identity = fuzz_vfs_identity,
                             .now_us = fuzz_vfs_now_us};
}

static inline void fuzz_disk_end(struct fuzz_disk *disk)
{
    FUZZ_CHECK(disk->handles == 0 && disk->mappings == 0);
    while (disk->count > 0) {
        disk->inodes[0]->linked = 0;
        fuzz_forget_inode(disk, disk->inodes[0]);
    }
}

static inline void fuzz_disk_copy(struct fuzz_disk *to, const struct fuzz_disk *from)
{
    fuzz_disk_begin(to);
    for (size_t i = 0; i < from->count; i++) {
        const struct fuzz_inode *inode = from->inodes[i];
        struct fuzz_inode *copy = inode->linked ? fuzz_new_inode(to, inode->name) : NULL;
        if (copy == NULL)
            continue;
        fuzz_store(copy, 0, inode->bytes, (size_t)inode->stored);
        copy->size = inode->size;
    }
}

/* ------------------------------------------------------------------------------------------------
 * memory of databases: malloc, with a bound to what one call may ask for */

static void *fuzz_hook_alloc(void *context, size_t size)
{
    (void)context;
    FUZZ_CHECK(size <= FUZZ_ALLOCATION);
    return malloc(size);
}

static void *fuzz_hook_resize(void *context, void *memory, size_t old_size, size_t new_size)
{
    (void)context;
    (void)old_size;
    FUZZ_CHECK(new_size <= FUZZ_ALLOCATION);
    return realloc(memory, new_size);
}

static void fuzz_hook_release(void *context, void *memory, size_t size)
{
    (void)context;
    (void)size;
    free(memory);
}

static const omendb_allocator fuzz_allocator = {sizeof fuzz_allocator, NULL, fuzz_hook_alloc,
                                                fuzz_hook_resize, fuzz_hook_release};

/* Opens the database of a disk with limits so small that checkpoints and merges come often. */
static inline int fuzz_open(struct fuzz_disk *disk, uint32_t io, uint32_t read_only, omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.vfs = &disk->vfs;
    options.allocator = &fuzz_allocator;
    options.threads = 0;
    options.wal_limit = 8192;
    options.tail_limit = 4096;
    options.stall_timeout_ms = 1;
    options.io = io;
    options.read_only = read_only;
    return omendb_open("fuzz", &options, db);
}

/* ------------------------------------------------------------------------------------------------
 * inputs of files */

enum fuzz_kind {
    FUZZ_CURRENT,
    FUZZ_MANIFEST,
    FUZZ_WAL,
    FUZZ_SEGMENT,
    FUZZ_OVERLAY,
    FUZZ_LOCK,
    FUZZ_OTHER,
    FUZZ_KINDS
};

struct fuzz_file {
    enum fuzz_kind kind;
    uint8_t number;
    uint8_t *bytes;
    size_t size;
};

struct fuzz_files {
    uint8_t choice;
    size_t count;
    struct fuzz_file file[FUZZ_FILES];
};

static inline void fuzz_files_end(struct fuzz_files *files)
{
    for (size_t i = 0; i < files->count; i++)
        free(files->file[i].bytes);
    files->count = 0;
}

static inline const uint8_t *fuzz_unpack_runs(const uint8_t *at, const uint8_t *end,
                                              struct fuzz_file *file)
{
    file->bytes = NULL;
    file->size = 0;
    while (end - at >= 2) {
        size_t literal = (size_t)at[0] | (size_t)at[1] << 8;
        at += 2;
        literal = literal < (size_t)(end - at) ? literal : (size_t)(end - at);
        const uint8_t *bytes = at;
        at += literal;
        size_t zeros = end - at < 2 ? 0 : ((size_t)at[0] | (size_t)at[1] << 8) * 8;
        at = end - at < 2 ? end : at + 2;
        if (literal + zeros == 0 || literal + zeros > FUZZ_FILE_BYTES - file->size)
            break;
        file->bytes = fuzz_memory(file->bytes, file->size + literal + zeros);
        memcpy(file->bytes + file->size, bytes, literal);
        memset(file->bytes + file->size + literal, 0, zeros);
        file->size += literal + zeros;
    }
    return at;
}

static inline void fuzz_unpack(const uint8_t *data, size_t size, struct fuzz_files *files)
{
    const uint8_t *end = data + size;
    files->count = 0;
    files->choice = size > 0 ? *data++ : 0;
    while (end - data >= 2 && files->count < FUZZ_FILES) {
        struct fuzz_file *file = &files->file[files->count++];
        file->kind = (enum fuzz_kind)(data[0] % FUZZ_KINDS);
        file->number = data[1];
        data = fuzz_unpack_runs(data + 2, end, file);
        if (file->bytes == NULL)
            file->bytes = fuzz_memory(NULL, 1);
    }
}

/* Bytes from `at` up to the next 24 zeros that lie at a multiple of 8. */
static inline size_t fuzz_literal(const struct fuzz_file *file, size_t at)
{
    size_t end = at;
    while (end < file->size && end - at < 65528) {
        size_t zeros = 0;
        while (zeros < 24 && end + zeros < file->size && file->bytes[end + zeros] == 0)
            zeros++;
        if (zeros == 24)
            break;
        end += zeros + 1;
    }
    end = end < file->size ? end : file->size;
    return end - at < 65528 ? end - at : 65528;
}

static inline void fuzz_put16(uint8_t *out, size_t *at, size_t capacity, size_t value)
{
    if (*at + 2 <= capacity) {
        out[*at] = (uint8_t)value;
        out[*at + 1] = (uint8_t)(value >> 8);
    }
    *at += 2;
}

/* Returns the bytes of the input; more than `capacity`: it did not fit. */
static inline size_t fuzz_pack(const struct fuzz_files *files, uint8_t *out, size_t capacity)
{
    size_t used = 0;
    if (capacity > 0)
        out[used] = files->choice;
    used++;
    for (size_t i = 0; i < files->count; i++) {
        const struct fuzz_file *file = &files->file[i];
        fuzz_put16(out, &used, capacity, (size_t)file->kind | (size_t)file->number << 8);
        for (size_t at = 0; at < file->size;) {
            size_t literal = fuzz_literal(file, at), zeros = 0;
            while (at + literal + zeros < file->size && zeros < 65535 * 8 &&
                   file->bytes[at + literal + zeros] == 0)
                zeros++;
            fuzz_put16(out, &used, capacity, literal);
            if (used + literal <= capacity)
                memcpy(out + used, file->bytes + at, literal);
            used += literal;
            fuzz_put16(out, &used, capacity, zeros / 8);
            at += literal + zeros / 8 * 8;
            if (literal + zeros / 8 == 0) { /* fewer zeros than a unit end the file */
                used -= 4;
                fuzz_put16(out, &used, capacity, file->size - at);
                if (used + file->size - at <= capacity)
                    memset(out + used, 0, file->size - at);
                used += file->size - at;
                fuzz_put16(out, &used, capacity, 0);
                at = file->size;
            }
        }
        fuzz_put16(out, &used, capacity, 0);
        fuzz_put16(out, &used, capacity, 0);
    }
    return used;
}

static inline void fuzz_name(const struct fuzz_file *file, char name[STORAGE_NAME_BYTES])
{
    static const char *const names[FUZZ_KINDS] = {"CURRENT", "MANIFEST-%u", "wal-%u",  "seg-%u",
                                                  "ovl-%u",  "LOCK",        "other-%u"};
    memcpy(name, names[file->kind], strlen(names[file->kind]) + 1);
    char *place = strchr(name, '%');
    if (place != NULL)
        snprintf(place, 8, "%u", (unsigned)file->number);
}

/* A disk of these files; of two of one name the first. */
static inline void fuzz_disk_of_files(struct fuzz_disk *disk, const struct fuzz_files *files)
{
    fuzz_disk_begin(disk);
    for (size_t i = 0; i < files->count; i++) {
        char name[STORAGE_NAME_BYTES];
        fuzz_name(&files->file[i], name);
        if (fuzz_find(disk, name) == NULL)
            fuzz_store(fuzz_new_inode(disk, name), 0, files->file[i].bytes, files->file[i].size);
    }
}

static inline int fuzz_kind_of(const char *name, struct fuzz_file *file)
{
    static const enum fuzz_kind kinds[] = {[STORAGE_WAL] = FUZZ_WAL,
                                           [STORAGE_SEGMENT] = FUZZ_SEGMENT,
                                           [STORAGE_OVERLAY] = FUZZ_OVERLAY,
                                           [STORAGE_MANIFEST] = FUZZ_MANIFEST};
    enum storage_kind kind;
    uint64_t number = 0;
    if (strcmp(name, "CURRENT") == 0)
        file->kind = FUZZ_CURRENT;
    else if (storage_parse_name(name, &kind, &number) && number < 256)
        file->kind = kinds[kind];
    else
        return 0;
    file->number = (uint8_t)number;
    return 1;
}

/* The files of a disk, of those kinds whose bit is set in `kinds`. Zeros that a log has reserved
 * are left out. */
static inline void fuzz_files_of_disk(struct fuzz_files *files, const struct fuzz_disk *disk,
                                      unsigned kinds)
{
    files->count = 0;
    files->choice = 0;
    for (size_t i = 0; i < disk->count && files->count < FUZZ_FILES; i++) {
        struct fuzz_file *file = &files->file[files->count];
        const struct fuzz_inode *inode = disk->inodes[i];
        if (!inode->linked || !fuzz_kind_of(inode->name, file) || (kinds >> file->kind & 1) == 0)
            continue;
        file->size = (size_t)inode->stored;
        file->bytes = fuzz_memory(NULL, file->size);
        fuzz_load(inode, 0, file->bytes, file->size);
        files->count++;
    }
}

/* ------------------------------------------------------------------------------------------------
 * repair: what was changed gets the checksums that make it look as if it had been written so */

static inline void fuzz_repair_header(struct fuzz_file *file, const char *magic)
{
    memcpy(file->bytes, magic, FORMAT_MAGIC_BYTES);
    format_put32(file->bytes + FORMAT_HEADER_VERSION, FORMAT_VERSION);
    format_put32(file->bytes + FORMAT_HEADER_REFUSE, 0);
    storage_header_end(file->bytes);
}

/* The line as it is, with its checksum. */
static inline void fuzz_repair_current(struct fuzz_file *file)
{
    const uint8_t *end = file->size == 0 ? NULL : memchr(file->bytes, '\n', file->size);
    size_t line = end == NULL ? 0 : (size_t)(end - file->bytes) + 1;
    if (line == 0 || line > 48)
        return;
    uint32_t crc = checksum_crc32c(0, file->bytes, line);
    file->bytes = fuzz_memory(file->bytes, line + 10);
    snprintf((char *)file->bytes + line, 10, "%08x\n", (unsigned)crc);
    file->size = line + 9;
}

static inline void fuzz_repair_manifest(struct fuzz_file *file)
{
    if (file->size < FORMAT_MANIFEST_BYTES)
        return;
    format_put64(file->bytes + FORMAT_MANIFEST_LENGTH, file->size);
    format_put64(file->bytes + FORMAT_MANIFEST_NUMBER, file->number);
    format_put32(
        file->bytes + FORMAT_MANIFEST_CRC,
        checksum_crc32c(0, file->bytes + FORMAT_HEADER_BYTES, file->size - FORMAT_HEADER_BYTES));
    fuzz_repair_header(file, FORMAT_MAGIC_MANIFEST);
}

static inline void fuzz_repair_record(uint8_t *record, size_t total)
{
    uint32_t crc = checksum_crc32c(0, record, FORMAT_RECORD_CRC);
    crc = checksum_crc32c(crc, record + FORMAT_RECORD_SEQUENCE, total - FORMAT_RECORD_SEQUENCE);
    format_put32(record + FORMAT_RECORD_CRC, crc);
}

/* Bytes of the record at `at`, cut to what the file has; 0: there is none. */
static inline size_t fuzz_record(struct fuzz_file *file, size_t at)
{
    if (at > file->size || file->size - at < FORMAT_RECORD_BYTES ||
        format_is_zero(file->bytes + at, FORMAT_RECORD_BYTES))
        return 0;
    size_t room = (file->size - at) / FORMAT_RECORD_ALIGN * FORMAT_RECORD_ALIGN;
    uint64_t length = format_get32(file->bytes + at + FORMAT_RECORD_LENGTH);
    uint64_t total = format_align(FORMAT_RECORD_BYTES + length, FORMAT_RECORD_ALIGN);
    if (total <= room)
        return (size_t)total;
    format_put32(file->bytes + at + FORMAT_RECORD_LENGTH, (uint32_t)(room - FORMAT_RECORD_BYTES));
    return room;
}

/* renumber: sequences ascend from the header's. */
static inline void fuzz_repair_wal(struct fuzz_file *file, int renumber)
{
    if (file->size < FORMAT_HEADER_BYTES)
        return;
    uint64_t sequence = format_get64(file->bytes + FORMAT_WAL_FIRST_SEQUENCE);
    fuzz_repair_header(file, FORMAT_MAGIC_WAL);
    for (size_t at = FORMAT_HEADER_BYTES, total; (total = fuzz_record(file, at)) != 0;
         at += total, sequence++) {
        uint8_t *record = file->bytes + at;
        format_put64(record + FORMAT_RECORD_LOG_ID, format_get64(file->bytes + FORMAT_WAL_LOG_ID));
        if (renumber)
            format_put64(record + FORMAT_RECORD_SEQUENCE, sequence);
        if (renumber && format_get64(record + FORMAT_RECORD_DURABLE) > at)
            format_put64(record + FORMAT_RECORD_DURABLE, at);
        fuzz_repair_record(record, total);
    }
}

/* Where the parts of a footer lie whose counts fit the file. */
struct fuzz_footer {
    size_t data, length; /* bytes before it, and of it */
    uint32_t part_count, section_count;
    uint8_t *parts, *sections, *checksums, *trailer;
};

static inline int fuzz_find_footer(const struct fuzz_file *file, struct fuzz_footer *footer)
{
    if (file->size < BLOCK_BYTES + FORMAT_TRAILER_BYTES)
        return 0;
    footer->trailer = file->bytes + file->size - FORMAT_TRAILER_BYTES;
    footer->part_count = format_get32(footer->trailer + FORMAT_TRAILER_PARTS);
    footer->section_count = format_get32(footer->trailer + FORMAT_TRAILER_SECTIONS);
    uint64_t fixed = (uint64_t)footer->part_count * FORMAT_PART_BYTES +
                     (uint64_t)footer->section_count * FORMAT_SECTION_BYTES + FORMAT_TRAILER_BYTES;
    if (fixed > file->size || (file->size - fixed) % (BLOCK_BYTES + 4) != 0)
        return 0;
    uint64_t blocks = (file->size - fixed) / (BLOCK_BYTES + 4);
    footer->data = (size_t)(blocks * BLOCK_BYTES);
    footer->length = file->size - footer->data;
    footer->parts = file->bytes + footer->data;
    footer->sections = footer->parts + (size_t)footer->part_count * FORMAT_PART_BYTES;
    footer->checksums = footer->sections + (size_t)footer->section_count * FORMAT_SECTION_BYTES;
    return 1;
}

static inline void fuzz_repair_segment(struct fuzz_file *file)
{
    struct fuzz_footer footer;
    uint8_t place[8];
    if (!fuzz_find_footer(file, &footer))
        return;
    format_put64(file->bytes + FORMAT_SEGMENT_NUMBER, file->number);
    fuzz_repair_header(file,
                       file->kind == FUZZ_OVERLAY ? FORMAT_MAGIC_OVERLAY : FORMAT_MAGIC_SEGMENT);
    for (size_t block = 0; block < footer.data / BLOCK_BYTES; block++)
        format_put32(footer.checksums + block * 4,
                     blocks_checksum(file->number, block, file->bytes + block * BLOCK_BYTES));
    memcpy(footer.trailer, FORMAT_MAGIC_FOOTER, FORMAT_MAGIC_BYTES);
    format_put64(footer.trailer + FORMAT_TRAILER_LENGTH, footer.length);
    format_put64(place, file->number);
    uint32_t crc =
        checksum_crc32c(checksum_crc32c(0, place, sizeof place), footer.parts, footer.length - 4);
    format_put32(footer.trailer + FORMAT_TRAILER_CRC, crc);
}

/* The last four bytes of a segment or overlay, which its manifest repeats. */
static inline uint32_t fuzz_footer_crc(const struct fuzz_file *file)
{
    return file->size < 4 ? 0 : format_get32(file->bytes + file->size - 4);
}

/* Sizes and checksums of the files that a manifest lists. */
static inline void fuzz_repair_entries(struct fuzz_file *manifest, const struct fuzz_files *files)
{
    if (manifest->size < FORMAT_MANIFEST_BYTES)
        return;
    size_t entries = (manifest->size - FORMAT_MANIFEST_BYTES) / FORMAT_FILE_BYTES;
    uint32_t count = format_get32(manifest->bytes + FORMAT_MANIFEST_FILES);
    for (size_t i = 0; i < count && i < entries; i++) {
        uint8_t *entry = manifest->bytes + FORMAT_MANIFEST_BYTES + i * FORMAT_FILE_BYTES;
        uint32_t kind = format_get32(entry + FORMAT_FILE_KIND);
        for (size_t j = 0; j < files->count; j++) {
            const struct fuzz_file *file = &files->file[j];
            enum fuzz_kind wanted = kind == FORMAT_KIND_SEGMENT ? FUZZ_SEGMENT : FUZZ_OVERLAY;
            if (file->kind != wanted || file->number != format_get64(entry + FORMAT_FILE_NUMBER))
                continue;
            format_put64(entry + FORMAT_FILE_SIZE, file->size);
            format_put32(entry + FORMAT_FILE_CRC, fuzz_footer_crc(file));
        }
    }
}

static inline void fuzz_repair(struct fuzz_files *files, int renumber)
{
    for (size_t i = 0; i < files->count; i++) {
        struct fuzz_file *file = &files->file[i];
        if (file->kind == FUZZ_SEGMENT || file->kind == FUZZ_OVERLAY)
            fuzz_repair_segment(file);
        else if (file->kind == FUZZ_WAL)
            fuzz_repair_wal(file, renumber);
        else if (file->kind == FUZZ_CURRENT)
            fuzz_repair_current(file);
    }
    for (size_t i = 0; i < files->count; i++) {
        if (files->file[i].kind == FUZZ_MANIFEST) {
            fuzz_repair_entries(&files->file[i], files);
            fuzz_repair_manifest(&files->file[i]);
        }
    }
}

/* ------------------------------------------------------------------------------------------------
 * the ways in */

/* Where seeds go: into a folder, or straight to the target. */
struct fuzz_seeds {
    const char *folder; /* NULL: to `run` */
    int (*run)(const uint8_t *data, size_t size);
    size_t count;
};

struct fuzz_target {
    const char *name;
    int (*run)(const uint8_t *data, size_t size); /* 1: what the input held was accepted */
    void (*seed)(struct fuzz_seeds *seeds);
    size_t (*mutate)(uint8_t *data, size_t size, size_t capacity, unsigned seed); /* or NULL */
};

static inline void fuzz_add_seed(struct fuzz_seeds *seeds, const uint8_t *data, size_t size)
{
    char path[4096];
    if (seeds->folder == NULL) {
        seeds->count += (size_t)seeds->run(data, size);
        return;
    }
    snprintf(path, sizeof path, "%s/seed-%zu", seeds->folder, seeds->count++);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, size, file) != size || fclose(file) != 0) {
        fprintf(stderr, "%s cannot be written\n", path);
        exit(1);
    }
}

static inline void fuzz_add_seed_of_files(struct fuzz_seeds *seeds, struct fuzz_files *files)
{
    size_t size = fuzz_pack(files, NULL, 0);
    uint8_t *data = fuzz_memory(NULL, size);
    fuzz_pack(files, data, size);
    fuzz_add_seed(seeds, data, size);
    free(data);
}

/* One file, or those of a folder; returns how many, or -1. */
static inline int fuzz_replay(const struct fuzz_target *target, const char *path)
{
    struct stat facts;
    char child[4096];
    int count = 0, more = 0;
    if (stat(path, &facts) != 0)
        return -1;
    if (S_ISDIR(facts.st_mode)) {
        DIR *entries = opendir(path);
        const struct dirent *entry;
        while (entries != NULL && more >= 0 && (entry = readdir(entries)) != NULL) {
            if (entry->d_name[0] == '.' ||
                (size_t)snprintf(child, sizeof child, "%s/%s", path, entry->d_name) >= sizeof child)
                continue;
            more = fuzz_replay(target, child);
            count += more;
        }
        if (entries != NULL)
            closedir(entries);
        return more < 0 ? -1 : count;
    }
    FILE *file = fopen(path, "rb");
    uint8_t *data = fuzz_memory(NULL, (size_t)facts.st_size);
    size_t size = file == NULL ? 0 : fread(data, 1, (size_t)facts.st_size, file);
    if (file != NULL)
        fclose(file);
    target->run(data, size);
    free(data);
    return file == NULL ? -1 : 1;
}

/* 1: the arguments asked for seeds, which were written. */
static inline int fuzz_write_seeds(const struct fuzz_target *target, int argc, char **argv)
{
    if (argc != 3 || strcmp(argv[1], "--seed-corpus") != 0)
        return 0;
    struct fuzz_seeds seeds = {argv[2], target->run, 0};
    target->seed(&seeds);
    printf("%s: %zu seeds\n", target->name, seeds.count);
    return 1;
}

static inline int fuzz_replay_all(const struct fuzz_target *target, int argc, char **argv)
{
    if (fuzz_write_seeds(target, argc, argv))
        return 0;
    for (int i = 1; i < argc; i++) {
        int count = fuzz_replay(target, argv[i]);
        printf("%s: %s: %d inputs\n", target->name, argv[i], count);
        if (count < 0)
            return 1;
    }
    return 0;
}

#if defined(FUZZ_COLLECTED)
#define FUZZ_TARGET(name, mutator)                                                                 \
    static const struct fuzz_target fuzz_target_##name = {#name, fuzz_##name##_run,                \
                                                          fuzz_##name##_seed, NULL};
#elif FUZZ_ENGINE
/* Short stacks and a small quarantine: half of the time would go there. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=16:malloc_context_size=8:allocator_may_return_null=1";
}
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t capacity);
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t capacity, unsigned seed);
#include "fuzz_mutate.h"
#define FUZZ_TARGET(name, mutator)                                                                 \
    static const struct fuzz_target fuzz_target = {#name, fuzz_##name##_run, fuzz_##name##_seed,   \
                                                   mutator};                                       \
    int LLVMFuzzerInitialize(int *argc, char ***argv)                                              \
    {                                                                                              \
        if (fuzz_write_seeds(&fuzz_target, *argc, *argv))                                          \
            exit(0);                                                                               \
        return 0;                                                                                  \
    }                                                                                              \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)                                   \
    {                                                                                              \
        fuzz_target.run(data, size);                                                               \
        return 0;                                                                                  \
    }                                                                                              \
    size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t capacity, unsigned seed)     \
    {                                                                                              \
        return fuzz_target.mutate(data, size, capacity, seed);                                     \
    }
#else
#define FUZZ_TARGET(name, mutator)                                                                 \
    static const struct fuzz_target fuzz_target = {#name, fuzz_##name##_run, fuzz_##name##_seed,   \
                                                   NULL};                                          \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        return fuzz_replay_all(&fuzz_target, argc, argv);                                          \
    }
#endif

#endif
