/* storage.h: files of one database. Wraps omendb_vfs so that each failure has a sentence with the
 * file's name and each byte and sync is counted; knows the names of files. Above this nobody calls
 * the vfs. */
#ifndef OMENDB_STORAGE_H
#define OMENDB_STORAGE_H

#include "internal.h"
#include "memory.h"

#include <stdatomic.h>

struct storage {
    const omendb_vfs *vfs;
    void *directory;
    struct memory *memory;
    uint32_t io;   /* OMENDB_IO_*, or one of blocks.h */
    uint32_t sync; /* OMENDB_SYNC_*: OFF skips every sync, of files and directories */
    _Atomic uint64_t written_bytes; /* this and the next two count: relaxed */
    _Atomic uint64_t syncs;
    _Atomic uint64_t mapped_bytes;
    _Atomic uint32_t sync_failed; /* 1 for ever after a sync failed: the database must be reopened
                                     before it is written again. Asked by the thread whose call
                                     failed; others learn it from `poisoned` (database.h) */
};

enum storage_kind { STORAGE_WAL, STORAGE_SEGMENT, STORAGE_OVERLAY, STORAGE_MANIFEST };
#define STORAGE_NAME_BYTES 40

/* "wal-17", "seg-17", "ovl-17", "MANIFEST-17". */
OMENDB_INTERNAL void storage_name(enum storage_kind kind, uint64_t number,
                                  char name[STORAGE_NAME_BYTES]);
/* The reverse; 0 when the name is none of these. */
OMENDB_INTERNAL int storage_parse_name(const char *name, enum storage_kind *kind, uint64_t *number);

struct storage_file {
    void *handle; /* NULL: closed */
    char name[STORAGE_NAME_BYTES];
};
OMENDB_INTERNAL int storage_open(struct storage *storage, const char *name, int flags,
                                 struct storage_file *file);
OMENDB_INTERNAL int storage_close(struct storage *storage,
                                  struct storage_file *file); /* a closed one is OK */
OMENDB_INTERNAL int storage_size(struct storage *storage, struct storage_file *file,
                                 uint64_t *size);
OMENDB_INTERNAL int storage_read(struct storage *storage, struct storage_file *file,
                                 uint64_t offset, void *buffer, size_t size);
OMENDB_INTERNAL int storage_write(struct storage *storage, struct storage_file *file,
                                  uint64_t offset, const void *buffer, size_t size);
OMENDB_INTERNAL int storage_truncate(struct storage *storage, struct storage_file *file,
                                     uint64_t size);
OMENDB_INTERNAL int storage_allocate(struct storage *storage, struct storage_file *file,
                                     uint64_t size);
OMENDB_INTERNAL int storage_sync(struct storage *storage, struct storage_file *file);
OMENDB_INTERNAL int storage_sync_directory(struct storage *storage);
OMENDB_INTERNAL int storage_rename(struct storage *storage, const char *from, const char *to);
OMENDB_INTERNAL int storage_unlink(struct storage *storage, const char *name); /* not there: OK */
/* Replaces all bytes of a file, the space that is reserved for it included, by zeros, and syncs it.
 * Nobody may read it any more. Not there: OK. */
OMENDB_INTERNAL int storage_overwrite(struct storage *storage, const char *name);

/* The first 64 bytes of a file, see format.h: zeroed with magic and version; the checksum, once the
 * kind's fields are in. */
OMENDB_INTERNAL void storage_header_begin(uint8_t *header, const char *magic);
OMENDB_INTERNAL void storage_header_end(uint8_t *header);
/* OMENDB_FORMAT: another magic, a later version, an unknown feature that forbids opening;
 * OMENDB_CORRUPT: the checksum. */
OMENDB_INTERNAL int storage_header_check(const char *name, const uint8_t *header,
                                         const char *magic);

#endif
