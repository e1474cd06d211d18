/* storage.c: the vfs of one database, with sentences and counters.
 *
 * Invariant: every failure that leaves here has set the thread's sentence, with the file's name,
 * the offset where there is one, the system's reason and what to do; and a sync that failed is
 * remembered in `sync_failed`, because the pages it was about may be clean now although they never
 * reached the device (a second sync would succeed and mean nothing).
 *
 * Syncs are skipped here under OMENDB_SYNC_OFF, and only here, so that callers read as the protocol
 * they implement.
 *
 * Rejected: repeating what failed. The vfs repeats interrupted and short calls; anything else is
 * for the caller's caller. */
#include "storage.h"

#include "checksum.h"
#include "error.h"
#include "format.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const storage_prefixes[] = {[STORAGE_WAL] = "wal-",
                                               [STORAGE_SEGMENT] = "seg-",
                                               [STORAGE_OVERLAY] = "ovl-",
                                               [STORAGE_MANIFEST] = "MANIFEST-"};
#define STORAGE_KINDS (sizeof storage_prefixes / sizeof storage_prefixes[0])
#define STORAGE_ZEROS (64 << 10) /* bytes written at a time where a file is overwritten */

OMENDB_INTERNAL void storage_name(enum storage_kind kind, uint64_t number,
                                  char name[STORAGE_NAME_BYTES])
{
    snprintf(name, STORAGE_NAME_BYTES, "%s%" PRIu64, storage_prefixes[kind], number);
}

/* Strict: the digits that storage_name writes and no others, so that a number has one name. */
static int storage_parse_number(const char *digits, uint64_t *number)
{
    uint64_t value = 0;
    size_t count = strlen(digits);
    if (count == 0 || count > 20 || (count > 1 && digits[0] == '0'))
        return 0;
    for (size_t i = 0; i < count; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return 0;
        uint64_t digit = (uint64_t)(digits[i] - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return 0;
        value = value * 10 + digit;
    }
    *number = value;
    return 1;
}

OMENDB_INTERNAL int storage_parse_name(const char *name, enum storage_kind *kind, uint64_t *number)
{
    for (size_t i = 0; i < STORAGE_KINDS; i++) {
        size_t length = strlen(storage_prefixes[i]);
        if (strncmp(name, storage_prefixes[i], length) == 0 &&
            storage_parse_number(name + length, number)) {
            *kind = (enum storage_kind)i;
            return 1;
        }
    }
    return 0;
}

/* What a person can do about a code; "" where the reason says it all. */
static const char *storage_advice(int code)
{
    switch (code) {
    case OMENDB_FULL:
        return " (free some space)";
    case OMENDB_PERMISSION:
        return " (check owner and mode of the database)";
    case OMENDB_NOMEM:
        return " (raise memory_limit)";
    default:
        return "";
    }
}

/* Gives the sentence to a failed call of the vfs; `reason` is its errno. */
static int storage_fail(int code, int reason, const char *what, const char *name)
{
    return error_set_system(code, reason, "cannot %s %s%s", what, name, storage_advice(code));
}

static int storage_fail_at(int code, int reason, const char *what, const char *name,
                           uint64_t offset, uint64_t size)
{
    return error_set_system(code, reason,
                            "cannot %s %" PRIu64 " bytes at offset %" PRIu64 " of %s%s", what, size,
                            offset, name, storage_advice(code));
}

OMENDB_INTERNAL int storage_open(struct storage *storage, const char *name, int flags,
                                 struct storage_file *file)
{
    file->handle = NULL;
    snprintf(file->name, sizeof file->name, "%s", name);
    errno = 0;
    int code =
        storage->vfs->open(storage->vfs->context, storage->directory, name, flags, &file->handle);
    if (code == OMENDB_OK)
        return OMENDB_OK;
    int reason = errno;
    file->handle = NULL;
    return storage_fail(code, reason, (flags & OMENDB_OPEN_CREATE) ? "create" : "open", name);
}

OMENDB_INTERNAL int storage_close(struct storage *storage, struct storage_file *file)
{
    if (file->handle == NULL)
        return OMENDB_OK;
    void *handle = file->handle;
    file->handle = NULL; /* also on failure: the descriptor is gone either way */
    errno = 0;
    int code = storage->vfs->close(storage->vfs->context, handle);
    return code == OMENDB_OK ? OMENDB_OK : storage_fail(code, errno, "close", file->name);
}

OMENDB_INTERNAL int storage_size(struct storage *storage, struct storage_file *file, uint64_t *size)
{
    errno = 0;
    int code = storage->vfs->size(storage->vfs->context, file->handle, size);
    return code == OMENDB_OK ? OMENDB_OK : storage_fail(code, errno, "get the size of", file->name);
}

OMENDB_INTERNAL int storage_read(struct storage *storage, struct storage_file *file,
                                 uint64_t offset, void *buffer, size_t size)
{
    if (size == 0)
        return OMENDB_OK;
    errno = 0;
    int code = storage->vfs->read(storage->vfs->context, file->handle, offset, buffer, size);
    return code == OMENDB_OK ? OMENDB_OK
                             : storage_fail_at(code, errno, "read", file->name, offset, size);
}

OMENDB_INTERNAL int storage_write(struct storage *storage, struct storage_file *file,
                                  uint64_t offset, const void *buffer, size_t size)
{
    if (size == 0)
        return OMENDB_OK;
    errno = 0;
    int code = storage->vfs->write(storage->vfs->context, file->handle, offset, buffer, size);
    if (code != OMENDB_OK)
        return storage_fail_at(code, errno, "write", file->name, offset, size);
    atomic_fetch_add_explicit(&storage->written_bytes, size, memory_order_relaxed);
    return OMENDB_OK;
}

OMENDB_INTERNAL int storage_truncate(struct storage *storage, struct storage_file *file,
                                     uint64_t size)
{
    errno = 0;
    int code = storage->vfs->truncate(storage->vfs->context, file->handle, size);
    return code == OMENDB_OK ? OMENDB_OK : storage_fail(code, errno, "truncate", file->name);
}

OMENDB_INTERNAL int storage_allocate(struct storage *storage, struct storage_file *file,
                                     uint64_t size)
{
    errno = 0;
    int code = storage->vfs->allocate(storage->vfs->context, file->handle, size);
    return code == OMENDB_OK ? OMENDB_OK
                             : storage_fail(code, errno, "reserve space for", file->name);
}

/* Relaxed counters; the mark is a release so that whoever sees it also sees what was written before
 * the failure. */
static int storage_synced(struct storage *storage, int code, const char *name)
{
    int reason = errno;
    atomic_fetch_add_explicit(&storage->syncs, 1, memory_order_relaxed);
    if (code == OMENDB_OK)
        return OMENDB_OK;
    atomic_store_explicit(&storage->sync_failed, 1, memory_order_release);
    return error_set_system(
        code, reason, "cannot sync %s; what was written may be lost: close and reopen the database",
        name);
}

OMENDB_INTERNAL int storage_sync(struct storage *storage, struct storage_file *file)
{
    if (storage->sync == OMENDB_SYNC_OFF)
        return OMENDB_OK;
    errno = 0;
    return storage_synced(storage, storage->vfs->sync(storage->vfs->context, file->handle),
                          file->name);
}

OMENDB_INTERNAL int storage_sync_directory(struct storage *storage)
{
    if (storage->sync == OMENDB_SYNC_OFF)
        return OMENDB_OK;
    errno = 0;
    return storage_synced(storage,
                          storage->vfs->sync_directory(storage->vfs->context, storage->directory),
                          "the directory");
}

OMENDB_INTERNAL int storage_rename(struct storage *storage, const char *from, const char *to)
{
    errno = 0;
    int code = storage->vfs->rename(storage->vfs->context, storage->directory, from, to);
    return code == OMENDB_OK ? OMENDB_OK : storage_fail(code, errno, "rename to", to);
}

OMENDB_INTERNAL int storage_unlink(struct storage *storage, const char *name)
{
    errno = 0;
    int code = storage->vfs->unlink(storage->vfs->context, storage->directory, name);
    if (code == OMENDB_OK || code == OMENDB_NOTFOUND)
        return OMENDB_OK;
    return storage_fail(code, errno, "delete", name);
}

static int storage_write_zeros(struct storage *storage, struct storage_file *file)
{
    static const uint8_t zeros[STORAGE_ZEROS];
    uint64_t size = 0;
    int code = storage_size(storage, file, &size);
    for (uint64_t at = 0; at < size && code == OMENDB_OK; at += sizeof zeros) {
        size_t run = size - at < sizeof zeros ? (size_t)(size - at) : sizeof zeros;
        code = storage_write(storage, file, at, zeros, run);
    }
    return code == OMENDB_OK ? storage_sync(storage, file) : code;
}

OMENDB_INTERNAL int storage_overwrite(struct storage *storage, const char *name)
{
    struct storage_file file = {0};
    int code = storage_open(storage, name, OMENDB_OPEN_READ | OMENDB_OPEN_WRITE, &file);
    if (code == OMENDB_NOTFOUND)
        return OMENDB_OK;
    if (code != OMENDB_OK)
        return code;
    code = storage_write_zeros(storage, &file);
    int closed = storage_close(storage, &file);
    return code == OMENDB_OK ? closed : code;
}

OMENDB_INTERNAL void storage_header_begin(uint8_t *header, const char *magic)
{
    memset(header, 0, FORMAT_HEADER_BYTES);
    memcpy(header, magic, FORMAT_MAGIC_BYTES);
    format_put32(header + FORMAT_HEADER_VERSION, FORMAT_VERSION);
}

OMENDB_INTERNAL void storage_header_end(uint8_t *header)
{
    format_put32(header + FORMAT_HEADER_CRC, checksum_crc32c(0, header, FORMAT_HEADER_CRC));
}

OMENDB_INTERNAL int storage_header_check(const char *name, const uint8_t *header, const char *magic)
{
    if (memcmp(header, magic, FORMAT_MAGIC_BYTES) != 0)
        return error_set(OMENDB_CORRUPT, "%s: offset 0: it does not begin with %s; " ERROR_RESTORE,
                         name, magic);
    uint32_t crc = checksum_crc32c(0, header, FORMAT_HEADER_CRC),
             stored = format_get32(header + FORMAT_HEADER_CRC);
    if (crc != stored || format_get32(header + FORMAT_HEADER_ZERO) != 0)
        return error_set(OMENDB_CORRUPT,
                         "%s: header (offset 0): checksum %08" PRIx32 ", expected %08" PRIx32
                         "; " ERROR_RESTORE,
                         name, crc, stored);
    uint32_t version = format_get32(header + FORMAT_HEADER_VERSION);
    if (version == 0 || version > FORMAT_VERSION)
        return error_set(OMENDB_FORMAT,
                         "%s: format version %" PRIu32
                         ", this library reads up to %d; use a later OmenDB",
                         name, version, FORMAT_VERSION);
    uint32_t refuse = format_get32(header + FORMAT_HEADER_REFUSE);
    if (refuse != 0)
        return error_set(OMENDB_FORMAT,
                         "%s: needs features %08" PRIx32
                         " that this library lacks; use a later OmenDB",
                         name, refuse);
    return OMENDB_OK;
}

#undef STORAGE_KINDS
#undef STORAGE_ZEROS
