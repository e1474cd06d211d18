/* manifest.h: MANIFEST-<n>, the immutable root of everything, named by CURRENT. In memory it is
 * this plain structure, which the engine fills for each publication; on disk: header of 64 bytes
 * (magic "OMENDBMF", version, three masks, length, CRC32C of all that follows and of the header),
 * then fixed fields, files, collections sorted by the bytes of their names, their schema, counters
 * and segments. manifest.c has the byte layout. CURRENT holds the name of the manifest and a
 * newline, and its CRC32C in hexadecimal. */
#ifndef OMENDB_MANIFEST_H
#define OMENDB_MANIFEST_H

#include "internal.h"
#include "calibration.h"
#include "storage.h"

struct manifest_file {
    uint64_t number;
    uint64_t size;
    uint32_t footer_crc;
    uint32_t kind; /* enum storage_kind: STORAGE_SEGMENT or STORAGE_OVERLAY */
};

struct manifest_segment {
    uint64_t file;
    uint32_t part;
    uint32_t overlay_part;
    uint64_t overlay_file; /* 0: no tombstones */
};

struct manifest_collection {
    uint64_t id;
    uint64_t next_id; /* next automatic id of a record */
    char name[256];
    omendb_schema schema; /* complete */
    uint32_t segment_count;
    struct manifest_segment *segments;
    struct calibration *calibration; /* that omendb_calibrate measured, or NULL */
    uint64_t document_bytes;         /* of all visible records */
    omendb_limits limits;
    uint8_t *declaration; /* NULL: none */
    uint32_t declaration_bytes;
};

struct manifest {
    uint64_t number;     /* its own */
    uint64_t database;   /* id, random; 0: none yet */
    uint32_t copy;       /* 1: written by a backup, 0: by who has the database open for writing */
    uint64_t commit;     /* S: everything up to it is in the segments; replay applies later ones */
    uint64_t wal_number; /* first log to replay */
    uint64_t next_file;  /* next number of any file */
    uint64_t next_collection;    /* next id of a collection */
    uint32_t read_only_features; /* from manifest_read: unknown ones; not 0: the database may only
                                    be opened read-only */
    uint32_t file_count;
    uint32_t collection_count;
    struct manifest_file *files;
    struct manifest_collection *collections; /* sorted by name; NULL where they are packed, */
    uint8_t *packed;                         /* as in a file: manifest_pack */
    size_t packed_bytes;
};

OMENDB_INTERNAL void
manifest_destroy(struct memory *memory,
                 struct manifest *manifest); /* frees the arrays; a zeroed one is OK */

/* Keeps the collections in a third of the memory. OMENDB_NOMEM: as they were. */
OMENDB_INTERNAL int manifest_pack(struct memory *memory, struct manifest *manifest);
/* A manifest of nothing but the collections of one that is packed; the caller destroys it.
 * OMENDB_NOMEM: it is empty. */
OMENDB_INTERNAL int manifest_unpack(struct memory *memory, const struct manifest *packed,
                                    struct manifest *collections);

/* Limits as the manifest and logs have them: FORMAT_LIMITS_BYTES. */
OMENDB_INTERNAL void manifest_encode_limits(const omendb_limits *limits, uint8_t *at);
OMENDB_INTERNAL void manifest_decode_limits(const uint8_t *at, omendb_limits *limits);
/* Whether there are any. */
OMENDB_INTERNAL int manifest_has_limits(const omendb_limits *limits);

/* Numbers are given out one by one, so none comes near; what is beyond could wrap. */
#define MANIFEST_LARGEST_NUMBER ((uint64_t)INT64_MAX)

/* Whether a collection may have the name: 1 to 255 bytes of UTF-8 without control characters, and a
 * NUL. */
OMENDB_INTERNAL int manifest_name_is_legal(const char name[256]);
/* How many of so many bytes are UTF-8 without control characters, from the first on. */
OMENDB_INTERNAL size_t manifest_name_legal_bytes(const char *name, size_t length);
/* What it says of a segment or overlay; NULL: it does not name it. */
OMENDB_INTERNAL const struct manifest_file *manifest_find_file(const struct manifest *manifest,
                                                               uint64_t number);

/* Writes MANIFEST-<number> and CURRENT.tmp, syncs both and the directory (so also the entries of
 * new segments), renames CURRENT.tmp to CURRENT, syncs the directory. OMENDB_POISONED: the new
 * manifest or the former one may be the current one after a crash; delete nothing that either
 * needs. Any other error: the former one is. OMENDB_MISUSE: manifest_read would refuse it; nothing
 * was written. Files may be in any order; manifest_read gives them ascending. */
OMENDB_INTERNAL int manifest_write(struct storage *storage, const struct manifest *manifest);

/* Reads CURRENT and what it names. OMENDB_NOTFOUND: there is no CURRENT. OMENDB_CORRUPT,
 * OMENDB_FORMAT (magic, later version, unknown "refuse" feature), OMENDB_IOERR. Everything is
 * bounded: counts against the length, names, schema values, ascending order. */
OMENDB_INTERNAL int manifest_read(struct storage *storage, struct manifest *manifest);
/* Whether two manifests, as manifest_read gives them, are of the same bytes. OMENDB_NOMEM. */
OMENDB_INTERNAL int manifest_compare(struct memory *memory, const struct manifest *a,
                                     const struct manifest *b, int *same);
/* One that CURRENT need not name. OMENDB_NOTFOUND: it is not there. */
OMENDB_INTERNAL int manifest_read_number(struct storage *storage, uint64_t number,
                                         struct manifest *manifest);
/* OMENDB_OK where CURRENT names this manifest, of this database, still. OMENDB_POISONED: somebody
 * removed the files of the directory, or put those of another database there, although it is open;
 * nothing may be written to it any more. OMENDB_IOERR, OMENDB_PERMISSION: it cannot be told. */
OMENDB_INTERNAL int manifest_confirm(struct storage *storage, const struct manifest *manifest);
/* Only the number that CURRENT names. */
OMENDB_INTERNAL int manifest_current(struct storage *storage, uint64_t *number);

#endif
