/* wal.h: the log. One file at a time grows; commits are numbered by the caller, each is one record.
 *
 * wal-<n>, little-endian. Header of 64 bytes:
 *   magic "OMENDBWL", u32 format version, 3 x u32 feature masks (ignore, read-only, refuse),
 *   u64 log id (random; names this file in its records), u64 first sequence,
 *   u64 predecessor's number (0: none), u64 predecessor's final length, u32 CRC32C of the above.
 * Then records, each at a multiple of 8:
 *   u32 payload length, u32 CRC32C of all the record's other bytes, u64 sequence, u64 log id,
 *   u64 durable_upto, u32 type, u32 zero, payload, zeros up to a multiple of 8.
 * durable_upto is the offset that was known to be on the device when the record was appended. The
 * file is preallocated in steps; what follows the last record is zeros, under OMENDB_SYNC_FULL
 * written ahead of small records.
 *
 * Reading: records with consecutive sequences from the header's first on. At the first one that is
 * not valid (offset X) the rest is searched for valid records of this log id: if one says that
 * durable_upto > X, or a known final length is > X, it is OMENDB_CORRUPT; else it is the end.
 * A failed or short append is cut before the next. Nothing is appended to a log that was read:
 * recovery begins a new one. */
#ifndef OMENDB_WAL_H
#define OMENDB_WAL_H

#include "internal.h"
#include "storage.h"

#define WAL_HEADER_BYTES   64
#define WAL_LENGTH_UNKNOWN UINT64_MAX

enum wal_type { WAL_COMMIT = 1 };

struct wal {
    struct storage *storage;
    struct storage_file file;
    uint64_t number;
    uint64_t log_id;
    uint64_t next_sequence;
    uint64_t length;    /* end of the last record; guarded by the caller's commit mutex */
    uint64_t allocated; /* of the file */
    uint64_t written;   /* below it are records, or zeros that were written ahead of them */
    /* Raised (release) by who synced, after the sync; loaded (acquire) by who appends: an older
     * value promises less. */
    _Atomic uint64_t durable_upto;
    /* 1: a sync or a cut failed, nothing more may be appended. An append that loads it too early is
     * not synced any more, as the database is poisoned. */
    _Atomic uint32_t poisoned;
    uint8_t *buffer; /* gathers the small pieces of a record */
};

/* Creates the file with room for `allocate` bytes, header written; syncs file and directory when
 * `sync_now`. What the predecessor has up to `predecessor_length` must be synced before this is
 * called: readers take that length for durable. On failure the file is gone for good, so that the
 * predecessor may go on growing; OMENDB_POISONED if that could not be made sure. OMENDB_EXISTS: a
 * file of that number is there; it is left alone. wal_close is due only after success. */
OMENDB_INTERNAL int wal_create(struct storage *storage, uint64_t number, uint64_t first_sequence,
                               uint64_t predecessor, uint64_t predecessor_length, uint64_t allocate,
                               int sync_now, struct wal *wal);

struct wal_piece {
    const void *data;
    size_t size;
};

/* Appends one record made of `pieces`; one thread at a time. On failure nothing was appended (what
 * was written is cut); OMENDB_FULL where the disk is, OMENDB_TOOBIG over UINT32_MAX bytes. If even
 * the cut fails: OMENDB_POISONED. */
OMENDB_INTERNAL int wal_append(struct wal *wal, uint64_t sequence, uint32_t type,
                               const struct wal_piece *pieces, size_t piece_count);

/* Syncs the file. May run beside wal_append. The caller then calls wal_set_durable with the length
 * it saw before. */
OMENDB_INTERNAL int wal_sync(struct wal *wal);
OMENDB_INTERNAL void wal_set_durable(struct wal *wal, uint64_t length);
OMENDB_INTERNAL int wal_close(struct wal *wal); /* no sync */
/* Of a copy's first WAL_HEADER_BYTES: it follows no other log. */
OMENDB_INTERNAL void wal_header_detach(uint8_t *header);

struct wal_record {
    uint64_t sequence;
    uint64_t offset;
    uint32_t type;
    uint32_t size;
    const uint8_t *payload; /* valid during the call; 8-byte aligned */
};

struct wal_replay {
    uint64_t number;         /* in: which file */
    uint64_t final_length;   /* in: known from the manifest or the successor's header, or
                                WAL_LENGTH_UNKNOWN */
    uint64_t first_sequence; /* in: expected first sequence, 0: whatever the header says */
    int live_reader; /* in: 1: a writer may be appending (read-only opener): records are delivered
                      * up to what is known durable; an incomplete frame is the end */
    int may_sync;    /* in, with live_reader: 1: the records that are there are made durable by a
                      * sync of the reader's own, where the system allows it */
    uint64_t start_offset; /* in: 0, or go on from here (refresh) */
    /* out */
    uint64_t end; /* offset after the last delivered record */
    uint64_t next_sequence;
    uint64_t predecessor, predecessor_length, log_id;
    int torn; /* bytes other than zeros were cut after `end` */
};

/* Delivers the valid records in order. `deliver` may return an error, which ends the replay.
 * OMENDB_NOTFOUND: no such file, or its creation was not completed: it has no valid header and
 * nothing in it says that anything was durable (for the log that a manifest names, which was synced
 * before, that is corruption). OMENDB_CORRUPT, OMENDB_FORMAT, OMENDB_IOERR, OMENDB_NOMEM. */
OMENDB_INTERNAL int wal_read(struct storage *storage, struct wal_replay *replay,
                             int (*deliver)(void *context, const struct wal_record *record),
                             void *context);

/* Delivers every valid record of a log, also those behind damage; of them only such whose sequence
 * is larger than all before, as a payload may hold the copy of a record. Pages that the device does
 * not give are damage. `report` gets a sentence for each run of them, for each run of bytes that
 * are no records, and for a header that is not valid. `deliver` may return an error, which ends the
 * reading. Memory: 1 MiB, the largest record, and a bit for each page where any is unreadable.
 * OMENDB_DONE: no byte is but zeros, as a crash leaves a log that was being made; nothing is
 * reported. OMENDB_NOTFOUND: no such file. OMENDB_FORMAT: a later version wrote it.
 * OMENDB_PERMISSION, OMENDB_IOERR: it cannot be opened. OMENDB_NOMEM. */
OMENDB_INTERNAL int wal_salvage(struct storage *storage, uint64_t number,
                                int (*deliver)(void *context, const struct wal_record *record),
                                void (*report)(void *context, const char *sentence), void *context);

#endif
