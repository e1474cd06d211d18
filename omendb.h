/* OmenDB: an embeddable vector database in C. This header is the manual.
 *
 * Copyright 2026 The OmenDB Authors. SPDX-License-Identifier: Apache-2.0
 *
 * Build:   cc -std=c11 -O2 app.c omendb.c -lm -lpthread      (gcc or clang, no -m flags)
 *
 * In ten lines:
 *
 *     omendb *db;  omendb_collection *docs;  size_t found;
 *     omendb_schema schema = OMENDB_SCHEMA_INIT;   schema.dim = 3;
 *     float v[3] = {1, 0, 0};   uint64_t ids[5];   float distances[5];
 *     omendb_record record = OMENDB_RECORD_INIT;   record.id = 7;  record.vector = v;
 *     omendb_query query = OMENDB_QUERY_INIT;      query.vector = v;  query.k = 5;
 *     omendb_open("notes.omen", NULL, &db);
 *     omendb_collection_open_or_create(db, "docs", &schema, &docs);
 *     omendb_put(docs, NULL, &record, NULL);
 *     omendb_search(docs, NULL, &query, ids, distances, &found);
 *     omendb_collection_close(docs);   omendb_close(db);
 *
 * Each call that can fail gives a code, which a program checks; README.md has a whole one.
 *
 * THE CONTRACT
 *  1. A commit acknowledged under OMENDB_SYNC_FULL survives kill -9, an operating-system crash and
 *     power loss, if the device honours flush.
 *  2. After any crash the database is a prefix of the committed transactions that contains every
 *     acknowledged one. No holes, no halves.
 *  3. Damage that is there when a block is first read gives OMENDB_CORRUPT with file and offset,
 *     never memory unsafety. Damage inside the last group of commits in the log, also if it was
 *     synced, cannot be told from a torn tail and is cut there; `log` is told the offset.
 *  4. After a failed sync the handle refuses writes (OMENDB_POISONED) until the database is
 * reopened; a commit that returned OMENDB_IOERR may or may not be there after reopening.
 *  5. No call aborts, exits, prints, installs a signal handler or blocks for ever.
 *
 * HANDLES. `omendb` is one open database, `omendb_collection` a named set of vectors in it,
 * `omendb_txn` a transaction, `omendb_rows` a cursor, `omendb_pages` one over the hits of a query,
 * `omendb_facets` counts of values, `omendb_filter` a condition. A call that fails to make a handle
 * stores NULL. Every handle is released by its own call, which frees it. The order does not matter,
 * but the database goes last: a filter may be freed while pages or cursors that use it are open.
 * Cursors and pages end with their transaction: from then on they give OMENDB_MISUSE, and must be
 * closed all the same. Where open cursors are counted (omendb_stats.open_cursors, the sentence of
 * omendb_close), pages and facets are among them.
 *
 * THREADS. Any number of threads may use one handle at once, unless a call says otherwise. A search
 * never waits for a writer. One omendb_txn, omendb_rows, omendb_pages or omendb_facets is for one
 * thread at a time. A handle must not be closed while another thread uses it.
 *
 * RETURNS. Functions that can fail return OMENDB_OK (0) or a positive code of `omendb_code`;
 * omendb_errmsg() then has the sentence for people. Every function may return OMENDB_MISUSE (NULL
 * where none is allowed, a handle of another database or kind, a call in a forked child) and
 * OMENDB_NOMEM, and each that writes or opens files OMENDB_PERMISSION (their modes, or the mount,
 * were changed under it); they are not repeated at each. A handle that was closed is freed memory:
 * that it is used again is found out by luck only.
 *
 * STRUCTS carry their size in `struct_size`. A call that takes one refuses a size that is too small
 * (OMENDB_MISUSE). Set it with the _INIT macro where the struct is declared, or with the *_init
 * function at any time; to reset one in C: `schema = (omendb_schema)OMENDB_SCHEMA_INIT`. The two
 * structs of functions have neither: omendb_allocator has no defaults (struct_size is its sizeof),
 * and an omendb_vfs begins as a copy of omendb_default_vfs(). Fields are only ever appended. A
 * field left 0 means its default unless it says otherwise. A larger struct, of a later header, is
 * accepted while what this library does not know in it is 0, and OMENDB_INVALID otherwise; where
 * the library fills one, struct_size tells how much was filled.
 *
 * TEXT is UTF-8, NUL-terminated. Names of collections: 1 to 255 bytes, no control characters.
 *
 * CAVEATS
 *  - fork: in the child every call on an inherited handle returns OMENDB_MISUSE; only omendb_close
 *    may be called, which touches no file; the memory stays until the child ends, as other threads
 *    of the parent may have been at work in it. Open the database anew in the child: read_only, or
 *    for writing once the parent has closed it or is gone.
 *  - OMENDB_IO_MAP (the default) maps files: a device error, or another program that truncates
 *    them, faults the process (SIGBUS). Use OMENDB_IO_PREAD for untrusted or network files.
 *  - Network file systems often lack working locks: keep databases on local ones.
 *  - A directory that is removed or emptied while it is open is noticed late: commits go on into
 *    files that have no name any more, until the next checkpoint finds out (OMENDB_POISONED). What
 *    was put in its place meanwhile is left alone. Renaming it while it is open is harmless.
 *  - The file LOCK must not be removed: it is what keeps two writers apart.
 *  - A copy of the directory that was made while it was open for writing, but by omendb_backup, may
 *    be an older state or OMENDB_CORRUPT.
 *  - Big-endian machines are refused at compile time.
 */
#ifndef OMENDB_H
#define OMENDB_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(OMENDB_STATIC_API)
#define OMENDB_API static
#elif defined(_WIN32)
#define OMENDB_API
#elif defined(__GNUC__)
#define OMENDB_API __attribute__((visibility("default")))
#else
#define OMENDB_API
#endif

#define OMENDB_VERSION        "0.1.0"
#define OMENDB_VERSION_NUMBER 100 /* major * 10000 + minor * 100 + patch */
#define OMENDB_ABI_VERSION    2   /* changes when a compiled caller must be compiled again */
#define OMENDB_FORMAT_VERSION 2   /* of the files; see amalgamation/format.h */

/* -------------------------------- results */

/* Values are only ever appended. */
typedef enum omendb_code {
    OMENDB_OK = 0,
    OMENDB_INVALID = 1,  /* an argument's value: NaN, k of 0, a malformed name ... */
    OMENDB_NOTFOUND = 2, /* no such record, collection or database */
    OMENDB_EXISTS = 3,   /* the id or the collection is already there */
    OMENDB_MISMATCH = 4, /* a schema differs from the stored one, and the message names the field;
                            or a backup is of another database */
    OMENDB_BUSY = 5, /* another process or handle has it, children are open, a stall timed out, or
                        a prepared transaction has locked the record or the collection; nothing
                        was done (omendb_purge: what could be) */
    OMENDB_CONFLICT = 6,    /* another commit changed the same record first */
    OMENDB_READONLY = 7,    /* a write through a read-only handle or transaction */
    OMENDB_MISUSE = 8,      /* a call that the contract forbids */
    OMENDB_NOMEM = 9,       /* no memory, or memory_limit reached; nothing was done */
    OMENDB_FULL = 10,       /* the disk is full, or ids are used up; nothing was done */
    OMENDB_IOERR = 11,      /* the operating system refused; the message names file and reason */
    OMENDB_PERMISSION = 12, /* no permission to a file or directory */
    OMENDB_CORRUPT = 13,    /* stored bytes are damaged; the message names file and offset. Restore
                               a backup; without one see omendb_salvage */
    OMENDB_FORMAT = 14,     /* not an OmenDB database, or one of a later format */
    OMENDB_POISONED = 15, /* what is on the device is not known since an earlier failure: of a sync,
                             or of a rename or a cut that may have happened or not; or the directory
                             is another's by now; close and reopen */
    OMENDB_DROPPED = 16,  /* the collection was dropped */
    OMENDB_TOOBIG = 17,   /* over a limit: 1 GiB of vectors a batch, 2^31 rows of a segment (of what
                             is merged into one, or waits for one checkpoint), the share of
                             memory_limit that transactions have */
    OMENDB_UNSUPPORTED = 18, /* this platform or vfs cannot do it */
    OMENDB_DONE = 19,        /* a cursor has no further row: not a failure, no sentence */
    OMENDB_TIMEOUT = 20,     /* query.timeout_us went by before the search was over */
    OMENDB_QUOTA = 21        /* over a limit of the collection (omendb_limits); nothing was done */
} omendb_code;

/* The sentence for the last failed call of this thread, with file, offset and the offending number
 * where there are some. Never NULL; "" before any failure. Lifetime: until the thread's next
 * failing call. Threads: each has its own. */
OMENDB_API const char *omendb_errmsg(void);

/* A short constant name for a code: "corrupt", "busy". Never NULL; "unknown code" for others. */
OMENDB_API const char *omendb_strerror(int code);

/* OMENDB_VERSION of the compiled library, and the two other numbers. */
OMENDB_API const char *omendb_version(void);
OMENDB_API int omendb_version_number(void);
OMENDB_API int omendb_abi_version(void);
OMENDB_API int omendb_format_version(void);

/* Name of the instruction-set level that distances use: "scalar", "avx2", "avx512", "avx512vnni",
 * "neon", "neondotprod". Chosen once for the process at the first use; the environment variable
 * OMENDB_KERNELS forces one (a level that the CPU lacks falls back to the best one below it). */
OMENDB_API const char *omendb_kernels(void);

/* -------------------------------- element types, metrics */

/* Element type of vectors, stored or given. What becomes of an element x:
 *
 *   stored as    given in that type    given in another (b1 goes into b1 only)
 *   f32          x                     x
 *   f16, bf16    x                     x, rounded to nearest even; OMENDB_INVALID on overflow
 *   i8, u8       x: in stored units    x * scale, rounded, then saturated: 2.0 in u8 of scale 255
 *                                      is 255, silently
 *   b1           x                     x > 0
 *
 * and when it is read back:
 *
 *   stored as    as that type    as f32
 *   i8, u8       stored units    divided by scale
 *   b1           bits            0 or 1
 *
 * For values in 0..1: u8 with scale 255, given as f32. For bytes of a picture: u8 with scale 1,
 * given as u8. */
typedef enum omendb_scalar {
    OMENDB_F32 = 0,  /* IEEE 754 binary32 */
    OMENDB_F16 = 1,  /* IEEE 754 binary16 */
    OMENDB_BF16 = 2, /* upper half of binary32 */
    OMENDB_I8 = 3,
    OMENDB_U8 = 4,
    OMENDB_B1 = 5 /* bits, packed from the least significant of each byte: (dim + 7) / 8 bytes */
} omendb_scalar;

/* "f32", "f16", "bf16", "i8", "u8", "b1". Never NULL; "unknown type" for others. */
OMENDB_API const char *omendb_scalar_name(int scalar);

/* Distances: smaller is nearer, whatever the metric. */
typedef enum omendb_metric {
    OMENDB_L2 = 0,            /* squared Euclidean distance, in the units of the vectors given */
    OMENDB_COSINE = 1,        /* 1 - cos(a, b), in 0..2; a zero vector is refused */
    OMENDB_INNER_PRODUCT = 2, /* -dot(a, b) */
    OMENDB_HAMMING = 3        /* number of differing bits; for OMENDB_B1, and only for it */
} omendb_metric;

/* "l2", "cosine", "ip", "hamming". Never NULL; "unknown metric" for others. */
OMENDB_API const char *omendb_metric_name(int metric);

/* -------------------------------- memory and files from the host */

/* Where a database takes its memory. All three functions are needed. Each gets `context`. `alloc`
 * and `resize` may return NULL; `release` gets the size that was asked for. Memory is aligned for
 * max_align_t. Threads: called from any thread at once. */
typedef struct omendb_allocator {
    size_t struct_size;
    void *context;
    void *(*alloc)(void *context, size_t size);
    void *(*resize)(void *context, void *memory, size_t old_size, size_t new_size);
    void (*release)(void *context, void *memory, size_t size);
} omendb_allocator;

/* Flags of omendb_vfs.open. */
enum {
    OMENDB_OPEN_READ = 1,
    OMENDB_OPEN_WRITE = 2,  /* read and write */
    OMENDB_OPEN_CREATE = 4, /* create; with EXCLUSIVE fail with OMENDB_EXISTS where it is there */
    OMENDB_OPEN_EXCLUSIVE = 8
};

/* Locks of omendb_vfs.lock: whole file, advisory, owned by the open file; never waits. */
enum { OMENDB_LOCK_NONE = 0, OMENDB_LOCK_SHARED = 1, OMENDB_LOCK_EXCLUSIVE = 2 };

/* Advice of omendb_vfs.advise. */
enum {
    OMENDB_ADVISE_RANDOM = 0,
    OMENDB_ADVISE_SEQUENTIAL = 1,
    OMENDB_ADVISE_WILLNEED = 2,
    OMENDB_ADVISE_DONTNEED = 3
};

/* The file system and the clock behind a database. Everything that the library does to files goes
 * through one of these, so that a test can record it, fail it or replay it, and a host can put a
 * database anywhere.
 *
 * `directory` and `file` are handles that the vfs makes. `name` is one component, without '/'.
 * Functions return OMENDB_OK, or a code (OMENDB_IOERR, OMENDB_FULL, OMENDB_PERMISSION,
 * OMENDB_NOTFOUND, OMENDB_EXISTS, OMENDB_BUSY, OMENDB_NOMEM, OMENDB_UNSUPPORTED) and leave the
 * reason in errno. `read` and `write` do all of the bytes or fail (interrupted and short calls are
 * repeated inside); `read` past the end is OMENDB_IOERR. Only `map` (then also `unmap`) and
 * `advise` may be NULL. Threads: called from any thread at once. omendb_default_vfs() gives the one
 * of the operating system; copy it to wrap it. */
typedef struct omendb_vfs {
    size_t struct_size;
    void *context;
    /* Opens the directory; `create` makes the last component with mode 0700 if it is missing (and
     * syncs its parent). */
    int (*open_directory)(void *context, const char *path, int create, void **directory);
    void (*close_directory)(void *context, void *directory);
    int (*sync_directory)(void *context, void *directory);
    /* Calls `each` for every entry other than "." and "..", in any order; stops at its first
     * non-zero answer and returns it. */
    int (*list)(void *context, void *directory, int (*each)(void *argument, const char *name),
                void *argument);
    int (*rename)(void *context, void *directory, const char *from, const char *to);
    int (*unlink)(void *context, void *directory, const char *name);
    int (*open)(void *context, void *directory, const char *name, int flags, void **file);
    int (*close)(void *context, void *file);
    int (*size)(void *context, void *file, uint64_t *size);
    int (*read)(void *context, void *file, uint64_t offset, void *buffer, size_t size);
    int (*write)(void *context, void *file, uint64_t offset, const void *buffer, size_t size);
    int (*truncate)(void *context, void *file, uint64_t size);
    /* Reserves space up to `size` and extends the file to it; bytes beyond what was written read as
     * zero. */
    int (*allocate)(void *context, void *file, uint64_t size);
    int (*sync)(void *context, void *file);
    /* Maps [0, size) for reading; stays valid after close and unlink. NULL, or OMENDB_UNSUPPORTED:
     * the library reads instead. */
    int (*map)(void *context, void *file, uint64_t size, const void **address);
    void (*unmap)(void *context, const void *address, uint64_t size);
    void (*advise)(void *context, const void *address, uint64_t size, int advice);
    int (*lock)(void *context, void *file, int lock);
    /* A text that is equal for two opens of the same directory in one process, at most `capacity`
     * bytes with the NUL. */
    int (*identity)(void *context, void *directory, char *text, size_t capacity);
    uint64_t (*now_us)(void *context); /* monotonic */
} omendb_vfs;

/* The vfs of the operating system. Lifetime: static. */
OMENDB_API const omendb_vfs *omendb_default_vfs(void);

/* -------------------------------- database */

typedef struct omendb omendb;
typedef struct omendb_collection omendb_collection;
typedef struct omendb_txn omendb_txn;
typedef struct omendb_rows omendb_rows;
typedef struct omendb_filter omendb_filter;
typedef struct omendb_pages omendb_pages;
typedef struct omendb_facets omendb_facets;

enum {
    OMENDB_SYNC_FULL = 0,   /* a commit returns when it is on the device */
    OMENDB_SYNC_NORMAL = 1, /* synced at checkpoints and rotation: a crash of the machine may lose
                               the newest commits, in order */
    OMENDB_SYNC_OFF = 2 /* never synced: a crash of the machine may damage the database; one of the
                           process may not */
};

enum {
    OMENDB_IO_MAP = 0, /* files are mapped; blocks are verified when first touched */
    OMENDB_IO_PREAD =
        1 /* files are read into memory, and verified before use. It is as large as all segments
             together and counts in memory_limit, which so caps the size of the database */
};

enum { OMENDB_THREADS_AUTO = -1 };

#define OMENDB_MEMORY_LIMIT_MIN 8388608 /* bytes: 8 MiB */

/* How a database is opened. OMENDB_OPTIONS_INIT, or omendb_options_init, gives the defaults. */
typedef struct omendb_options {
    size_t struct_size;
    uint64_t memory_limit; /* bytes the database may allocate; 0: no limit; else at least
                            * OMENDB_MEMORY_LIMIT_MIN. Of it 3 MiB plus a quarter (with
                            * OMENDB_IO_PREAD a half) are kept for checkpoints, which come early as
                            * the rest fills up (an eighth of it serves calls that read, too). What
                            * does not fit waits for a checkpoint, for stall_timeout_ms at most and
                            * no longer than query.timeout_us; what then fits nowhere is
                            * OMENDB_NOMEM. So is, at once, a batch of new records outside of
                            * transactions whose ids and vectors are more than half of what is not
                            * kept. A cursor needs 16 bytes a record that no checkpoint has written
                            * yet. Merging a segment takes some 8 * M + 90 bytes a row while it
                            * lasts; with less, segments stay small and writers that outrun the
                            * graph get OMENDB_BUSY. Under OMENDB_IO_PREAD all segments must fit,
                            * too */
    uint64_t wal_limit;    /* bytes of log after which a checkpoint is made; 0: 64 MiB */
    uint64_t tail_limit;   /* bytes of vectors, per collection, that are not yet in a graph and are
                            * scanned by each search; 0: 8 MiB, 1 ms. Raise it for bulk loads.
                            * While the collection is searched (often, and within the last second)
                            * and there are background threads, writers wait at a thirty-second of
                            * it, but are not slowed below 256 KiB a second for that.
                            * Rows that were checkpointed without a graph, as when a program
                            * writes and closes, wait for a merge: beyond 4 times the limit each
                            * write is slowed by up to a second, at 16 times it stops */
    uint32_t stall_timeout_ms; /* how long a writer is slowed at those limits before OMENDB_BUSY;
                                * 0: 10,000 */
    int32_t threads;           /* background threads; OMENDB_THREADS_AUTO, which _INIT gives: as
                                * many as this process has cores; 0: none, see omendb_work */
    uint32_t sync;             /* OMENDB_SYNC_* */
    uint32_t io;               /* OMENDB_IO_* */
    uint32_t read_only;        /* 1: writes nothing, needs no lock, sees what was durable when it
                                * was opened or last refreshed; see omendb_refresh. It builds no
                                * graph: rows that are in the log only are compared one by one in
                                * each search, up to the writer's wal_limit of them and not its
                                * tail_limit. To keep readers fast lower wal_limit, or make
                                * checkpoints often */
    uint32_t must_exist;       /* 1: OMENDB_NOTFOUND instead of creating a database */
    const omendb_vfs *vfs;     /* NULL: the operating system's. Borrowed until close */
    const omendb_allocator *allocator; /* NULL: malloc. Copied */
    /* NULL, or called, from any thread, with a line of text worth noting: a torn tail of the
     * log was cut, a background step failed (OMENDB_CORRUPT here is the first sign of a
     * damaged file that no call has read yet). It must not call the database. */
    void (*log)(void *context, int code, const char *message);
    void *log_context;
} omendb_options;

#define OMENDB_OPTIONS_INIT                                                                        \
    {                                                                                              \
        sizeof(omendb_options), 0, 0, 0, 0, OMENDB_THREADS_AUTO, 0, 0, 0, 0, NULL, NULL, NULL,     \
            NULL                                                                                   \
    }
OMENDB_API void omendb_options_init(omendb_options *options);

/* Opens a database, creating it if it is missing. After a crash the log is replayed first, at most
 * twice wal_limit. Space for the log is reserved ahead, up to 4 MiB at a time, until it is closed.
 *
 * path:     a directory; ":memory:" is a database without files that goes at close (omendb_backup
 *           saves it). The parent must exist. What is made is for its owner alone: directories of
 *           mode 0700, files 0600. Copied.
 * options:  NULL for defaults.
 * db:       receives the handle; NULL on failure.
 * Lifetime: until omendb_close.
 * Threads:  any.
 * Returns:  OMENDB_OK; OMENDB_BUSY (open for writing elsewhere, in this process or another; with
 *           read_only: the writer makes checkpoints faster than they can be read, try again);
 *           OMENDB_NOTFOUND (read_only or must_exist, and not there; or no parent to create it
 *           in); OMENDB_FORMAT (a file, or a directory with other things in it, or a later format);
 *           OMENDB_CORRUPT; OMENDB_PERMISSION; OMENDB_IOERR; OMENDB_FULL; OMENDB_INVALID (a field
 *           of options; ":memory:" with read_only or must_exist). */
OMENDB_API int omendb_open(const char *path, const omendb_options *options, omendb **db);

/* Writes what is only in the log and in memory to segments, and closes. Never builds graph: the
 * time is bounded by the bytes to write.
 *
 * db:       NULL is OK. Freed, whatever is returned but OMENDB_BUSY and OMENDB_MISUSE.
 * Threads:  none may use the handle any more.
 * Returns:  OMENDB_OK; OMENDB_BUSY (collections, transactions, cursors or filters are open;
 *           nothing was done); or the error of the last checkpoint: what was committed stays in the
 *           log. */
OMENDB_API int omendb_close(omendb *db);

/* Marks the handle closed; when its last collection, transaction, cursor or filter is closed, it
 * closes itself. For languages that free objects in any order.
 *
 * db:       NULL is OK. Later calls on it are OMENDB_MISUSE; calls on its children, too, but for
 *           those that close them, among which omendb_txn_commit and omendb_txn_prepare do their
 *           work.
 * Threads:  once, from any. */
OMENDB_API void omendb_release(omendb *db);

/* Moves a read-only handle on to what the writer has committed since. What it shows is durable: the
 * log is synced by the reader where the system allows that, which read-only media may not; there
 * the newest commit comes with the writer's next commit or checkpoint. When a device fails under
 * the writer, a reader may have shown a commit that the writer reported as failed; the next opening
 * for writing settles it. Where a refresh fails half-way, reading returns OMENDB_IOERR until one
 * succeeds.
 *
 * db:       a writing handle is always up to date: nothing happens. Open cursors go on with the
 *           state that they were opened at.
 * Threads:  no other call on the handle or its children may run meanwhile.
 * Returns:  OMENDB_OK; OMENDB_BUSY (transactions are open, or the writer makes checkpoints faster
 *           than they can be read: call it again); OMENDB_NOTFOUND (the database is gone);
 *           OMENDB_CORRUPT; OMENDB_IOERR. */
OMENDB_API int omendb_refresh(omendb *db);

/* Makes the log empty: seals what is in memory into segment files and syncs them. Happens by itself
 * when the log reaches wal_limit, and at close. Bounded by the bytes to write.
 *
 * Threads:  any; readers and writers go on.
 * Returns:  OMENDB_OK, OMENDB_READONLY, OMENDB_FULL, OMENDB_IOERR, OMENDB_POISONED. */
OMENDB_API int omendb_checkpoint(omendb *db);

/* Finishes all graphs, drops deleted rows, and merges every collection into one segment: the state
 * that is fastest to search. It is not needed for space: that of deleted and replaced rows, and of
 * dropped collections, comes back in the background (with threads = 0 in omendb_work and in calls
 * that write or delete). Live rows are at least half of the bytes of segments, in databases of more
 * than 64 MiB, but for what open transactions, cursors and readers of other processes keep. For
 * that, a segment is written anew once a quarter of its rows can go, and a checkpoint is made once
 * it lets a tenth of the bytes go: at most three bytes are written for one that comes back. While a
 * merge runs, what it merges is there twice: the live rows of one collection at most.
 *
 * Takes as long as building the graph of all rows that are not in the largest segment; or of all
 * rows, of 4,000 and more, where there is no curve for omendb_query.recall: they were loaded in one
 * go and not merged yet, or have doubled since. A collection that is searched while next to nothing
 * is added to it gets close by itself, in the background: what is in memory is sealed and segments
 * are merged until the largest holds 16 rows of 17.
 *
 * progress: NULL, or called now and then, from this thread, with rows done and rows in all (not 0):
 *           those stored in all collections when the call began. A merge of the background that is
 *           waited for counts, too. Rows done never fall; they stand still where rows are gone over
 *           once more. It must not call the database. An answer other than 0 ends the work with
 *           OMENDB_OK, leaving finished collections finished.
 * context:  given to progress.
 * Threads:  any; readers and writers go on. What is committed meanwhile is not waited for.
 * Returns:  OMENDB_OK, OMENDB_READONLY, OMENDB_FULL, OMENDB_IOERR, OMENDB_CORRUPT,
 *           OMENDB_POISONED. */
OMENDB_API int omendb_optimize(omendb *db,
                               int (*progress)(void *context, uint64_t done, uint64_t total),
                               void *context);

/* Makes sure that no file of the database holds the vectors, or codes of them, of what was deleted
 * or replaced before the call: for requests to erase. omendb_delete alone hides a row; its bytes
 * stay until a merge or a checkpoint comes by, which give space back without overwriting it. This
 * makes a checkpoint, rewrites the segments that hold such rows, and what shares a file with them;
 * then it overwrites the old files and logs with zeros, syncs and unlinks them. OK says that all of
 * that was done, and is on the device where `sync` is not OMENDB_SYNC_OFF.
 *
 * It takes the time of writing these segments anew, with their graphs kept where half of the rows
 * stay, and of overwriting; the space of one merge more than the database has. A crash or a failure
 * on the way leaves the database whole, and the call can be repeated.
 *
 * What it cannot reach: copies that merges and checkpoints unlinked earlier, whose blocks the file
 * system may have given to nobody yet, and those of a process that died; file systems that write
 * elsewhere what replaces a block (copy-on-write, snapshots, journals of data), and devices that do
 * (flash); backups and other copies of files; memory that was freed, and swap.
 *
 * A request to erase thus takes: omendb_delete; the end of the transactions and cursors that began
 * before it (omendb_stats.oldest_age_us); omendb_purge, which is OMENDB_BUSY while read_only
 * handles are open, as they hold the files that it replaced; omendb_refresh, or closing, of each;
 * omendb_purge again, which overwrites those; then omendb_backup onto each backup, which unlinks
 * there the files that held them, but does not overwrite them. Where that is not enough, backups
 * are destroyed by other means.
 *
 * collection: its name; NULL: all collections, and what is left of dropped ones. The log and the
 *             files that are shared are those of all, whichever is named.
 * Threads:    any; readers and writers go on, merges wait. What is deleted meanwhile may stay.
 * Returns:    OMENDB_OK; OMENDB_BUSY (something may still read deleted rows, which the sentence
 *             names: an open transaction, a cursor, a reader of another process, a backup; what
 *             could be rewritten was, so this may come as late as OK; calling again once it is
 *             gone does the rest, and what is collected before that, while the database stays
 *             open, is overwritten, too);
 *             OMENDB_NOTFOUND (no collection of this name), OMENDB_READONLY, OMENDB_NOMEM,
 *             OMENDB_FULL, OMENDB_IOERR, OMENDB_CORRUPT (a file that must be rewritten is damaged,
 *             and stays as it is; see omendb_salvage), OMENDB_POISONED. */
OMENDB_API int omendb_purge(omendb *db, const char *collection);

/* Does background work in this thread. For databases with threads = 0; harmless with others. Who
 * never calls it gets no error: writers then do what is needed when wal_limit or tail_limit is
 * reached, each for itself. Called when there is time, it keeps them fast.
 *
 * budget_us: microseconds after which no further step is begun; one step is done at least, which
 *            may take some 100 ms, and a merge, which may take minutes, is one step. UINT64_MAX:
 *            until nothing is left.
 * more:      NULL, or receives 1 if work may be left, else 0.
 * Threads:   any.
 * Returns:   OMENDB_OK or the error of a step. */
OMENDB_API int omendb_work(omendb *db, uint64_t budget_us, int *more);

/* Writes a consistent copy to another directory: the database as it is at one commit, which is not
 * before the last one that returned when the call began. It begins with a checkpoint, so a
 * read_only handle cannot do it. Of ":memory:" it is a "save as".
 *
 * Where the directory holds an earlier backup of this database, that is brought up to date: only
 * files that are new since are copied, those that are not needed any more are removed. A crash or
 * an error at any moment leaves the former backup or the new one, whole. Readers may have it open
 * meanwhile, and omendb_refresh then shows them the new one. The first backup, while it is being
 * made, is no database yet, and a crash leaves it so: omendb_open refuses it, and the next call
 * with the same path goes on with what was copied.
 *
 * Every block of the copy is verified, also of files that were there already: each call reads the
 * whole copy, at the speed of its device, and writes what is new (omendb_stats.backup_bytes). Files
 * of it that are damaged or missing are copied again.
 *
 * A backup is a database. To look at one or to verify it, open it read_only, and omendb_check. To
 * restore, copy the directory to where it is needed, or open it in its place. What is opened for
 * writing and written to, which merging in the background is, too, becomes a database of its own:
 * it is no backup of its former source any more, and needs a directory of its own for its backups.
 * So does a database that was restored: its next backup goes to a new directory, also when the one
 * that it came from is unchanged; a job that names always the same one fails from then on.
 * Prepared transactions go along; they wait in the copy, too.
 *
 * path:     must not exist, be an empty directory, or hold a backup of this database, finished or
 *           not, that nobody has written to; not inside of the database. On failure files that were
 *           written are removed, but for an empty LOCK.
 * Memory:   1 MiB, and a 2,000th of the largest file.
 * Threads:  any; readers and writers go on.
 * Returns:  OMENDB_OK, OMENDB_EXISTS (something else is there: a database, a backup that was
 *           written to), OMENDB_MISMATCH (a backup, finished or not, of another database, or of a
 *           later state than this one), OMENDB_BUSY (it is open for writing, another backup is made
 *           to it, or a ":memory:" has prepared transactions), OMENDB_FORMAT (a file, or a backup
 *           of a later format), OMENDB_NOTFOUND (its parent), OMENDB_INVALID (":memory:", "",
 *           inside of the database), OMENDB_FULL, OMENDB_IOERR, OMENDB_PERMISSION, OMENDB_CORRUPT
 *           (a block of the source is damaged, or the manifest of the former backup),
 *           OMENDB_READONLY, OMENDB_POISONED. */
OMENDB_API int omendb_backup(omendb *db, const char *path);

/* Verifies every checksum and every structural invariant: catalog, log, bounds of links, that the
 * rows of graphs can be reached, indexes of ids and keys against rows, one visible row for an id
 * and for a key. Changes nothing.
 *
 * Read anew, whatever was read before, are the manifest, and every block of the segments and
 * overlays that it names; through a writing handle also CURRENT and the log that is written to. A
 * read_only handle looks at the manifest that it shows (see omendb_refresh), and at no log: what it
 * shows of logs was verified when it was opened or refreshed, and to verify them once more takes
 * opening it once more. Not looked at are older logs, and what other manifests, or none, lead to.
 *
 * A damaged block is one line, with file, number and offset, after the names of the collections
 * that have bytes of it. Whether a segment is sound otherwise is told only where none of its blocks
 * is damaged.
 *
 * A database that lacks a file, or in which CURRENT, the manifest, an overlay, or the header,
 * length or end of a log or segment is damaged, is refused by omendb_open already. What to do about
 * problems: restore a backup, or save what is intact with omendb_salvage. Until then records in
 * intact blocks can be read and written; merges and omendb_purge of what is damaged fail, and its
 * space does not come back.
 *
 * report:   NULL, or called from this thread with one line for each problem. It must not call the
 *           database.
 * context:  given to report.
 * problems: NULL, or receives their number.
 * Threads:  any; readers and writers go on, checkpoints and merges wait.
 * Returns:  OMENDB_OK (also when there are problems), OMENDB_IOERR. */
OMENDB_API int omendb_check(omendb *db, void (*report)(void *context, const char *line),
                            void *context, uint64_t *problems);

/* What omendb_salvage got. */
typedef struct omendb_salvage_result {
    size_t struct_size;
    uint64_t collections; /* in the new database */
    uint64_t records;     /* in the new database */
    uint64_t lost_rows;   /* records known to have been there that could not be read; not counted:
                           * those of files and commits of which nothing could be read (see
                           * lost_files): 0 does not mean that nothing was lost */
    uint64_t doubtful;    /* rows of parts whose deletions are lost, wholly or in part: records that
                           * were deleted, or versions that were replaced, may be among them */
    uint64_t problems;    /* lines that were reported: where there are any, read them */
    uint64_t lost_files;  /* segments and logs that are missing, or of which nothing could be read:
                           * their rows are not in lost_rows */
    uint64_t lost_bytes; /* the size that they have or had, where it is known; what they held may be
                          * estimated from it */
} omendb_salvage_result;
#define OMENDB_SALVAGE_RESULT_INIT                                                                 \
    {                                                                                              \
        sizeof(omendb_salvage_result), 0, 0, 0, 0, 0, 0, 0                                         \
    }

OMENDB_API void omendb_salvage_result_init(omendb_salvage_result *result);

/* Reads a damaged database, and puts every record that is intact into a new one. A backup is
 * better where there is one: what is salvaged is not the state of any one commit.
 *   A record is saved when the blocks of 16 KiB that hold its id and its vector are intact, and the
 * end of its segment file, which tells where they lie (4 bytes for each block, and some hundred
 * more): a segment that was cut is lost as a whole. Where only its key and metadata are damaged, it
 * is saved without them; where only what omendb_update changed is, with the metadata that it had
 * before. Graphs, codes and indexes are made anew; curves of omendb_calibrate are not kept.
 *   Commits in the log are applied as far as they can be read, in order, also those behind damage:
 * there may be holes, and halves of commits. Pages of 4 KiB of it that the device does not give are
 * damage like any other. Prepared transactions wait, or are remembered, in the new database as in
 * the damaged one; those whose changes are lost, in part or as a whole, or for which memory_limit
 * leaves no room, are told. A deleted record may be back, or a replaced or updated one in its older
 * version, where the deletions and updates of a segment are lost, or commits of the log, or the
 * newest manifest.
 * `result` counts those of segments, `report` tells the places.
 *   Without any manifest the segments tell collections by their numbers: what the log does not
 * name is called "collection-<number>", which no call renames (omendb_scan reads it, to be put
 * into another), and gets the default ef, ef_construction, scale and seed; with a stored i8 or u8
 * and another scale the vectors are then right in stored units only.
 *
 * path:     the damaged database. Nothing in it is written: it may lie on read-only media. While
 *           the call runs it cannot be opened for writing.
 * new_path: must not exist, or be an empty directory; not inside of the damaged database. On
 *           failure what was saved so far stays there, as a database.
 * options:  NULL for defaults: vfs and allocator for both, the rest for the new database. read_only
 *           and must_exist are not heeded; `sync` but for OMENDB_SYNC_OFF neither: all is synced
 *           at the end.
 * report:   NULL, or called from this thread with one line for each problem: file, offset, what is
 *           lost. It must not call the database.
 * context:  given to report.
 * result:   NULL, or filled, also on failure; struct_size must be set.
 * Memory:   beside that of the new database 3 MiB, the largest commit of the log, the prepared
 *           transactions, some 9 bytes for each row of the largest segment; not counted in
 *           memory_limit.
 * Threads:  any.
 * Returns:  OMENDB_OK (also when there were problems, and when nothing could be saved),
 *           OMENDB_BUSY (open for writing), OMENDB_NOTFOUND (no such directory, no file of a
 *           database in it, or no parent of new_path), OMENDB_EXISTS (new_path is not empty),
 *           OMENDB_INVALID (":memory:", "", inside of the database, a field of options),
 *           OMENDB_FORMAT (a path is a file, or a later version wrote the database), OMENDB_FULL,
 *           OMENDB_IOERR and OMENDB_PERMISSION (of the new database, or of the directory of the
 *           damaged one). */
OMENDB_API int omendb_salvage(const char *path, const char *new_path, const omendb_options *options,
                              void (*report)(void *context, const char *line), void *context,
                              omendb_salvage_result *result);

/* Numbers of a whole database, at one moment. */
typedef struct omendb_stats {
    size_t struct_size;
    uint64_t commits; /* visible, counted since the database was made */
    uint64_t collections;
    uint64_t records;      /* visible, in all collections */
    uint64_t memory_bytes; /* allocated now */
    uint64_t memory_peak_bytes;
    uint64_t mapped_bytes;   /* of files; not in memory_bytes */
    uint64_t file_bytes;     /* of segments, overlays and the log. Not counted: what is reserved
                              * for the log, files that are being written, and old ones that
                              * readers of other processes hold, which may be as much again: see
                              * held_bytes */
    uint64_t wal_bytes;      /* of the log, to be replayed if the process died now */
    uint64_t written_bytes;  /* to files, since opening */
    uint64_t syncs;          /* of files and directories, since opening */
    uint64_t commit_groups;  /* syncs of the log, each for one or more commits */
    uint64_t checkpoints;    /* since opening */
    uint64_t merges;         /* of segments, since opening */
    uint64_t merges_rebuilt; /* of them, those whose sampled recall made a fresh build necessary */
    uint64_t open_transactions;
    uint64_t backup_bytes;      /* copied by omendb_backup, since opening */
    uint64_t backup_kept_bytes; /* of files that it found in the target, verified and kept */
    uint64_t open_cursors;
    uint64_t oldest_commit; /* that the oldest open transaction reads at; 0: none is open. This and
                             * what follows are of this handle; other processes are not seen */
    uint64_t oldest_age_us; /* how long ago it began: what to watch for snapshots left open */
    uint64_t pinned_rows;   /* deleted and replaced ones that only open transactions keep from being
                             * dropped, */
    uint64_t pinned_bytes;  /* and what they take in segments and, vectors alone, in memory; both
                             * are 0 when the last one that may read them has ended */
    uint64_t prepared_transactions; /* that wait for their outcome */
    uint64_t held_bytes; /* of old segments, overlays and logs that are kept on disk for readers of
                          * other processes, and backups that are being made, until they close or
                          * refresh; not in file_bytes */
} omendb_stats;
#define OMENDB_STATS_INIT                                                                          \
    {                                                                                              \
        sizeof(omendb_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
            0                                                                                      \
    }

OMENDB_API void omendb_stats_init(omendb_stats *stats);

/* Fills the numbers of a database. Counts the records, so it takes time in proportion to the
 * deleted rows; it waits for a checkpoint that is under way. While old files are held it lists the
 * directory.
 *
 * stats:    struct_size must be set.
 * Threads:  any.
 * Returns:  OMENDB_OK; only where old files are held, OMENDB_NOMEM or OMENDB_IOERR. */
OMENDB_API int omendb_get_stats(omendb *db, omendb_stats *stats);

/* -------------------------------- collections */

/* What a collection holds, and how its graph is built. M, ef_construction and ef have the meaning
 * of the paper: Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search
 * using Hierarchical Navigable Small World graphs", arXiv 1603.09320. */
typedef struct omendb_schema {
    size_t struct_size;
    uint32_t dim;    /* elements of a vector (bits for OMENDB_B1), 1..65,535 */
    uint32_t metric; /* omendb_metric; 0: L2 */
    uint32_t scalar; /* omendb_scalar, the stored type; 0: f32 */
    float scale;     /* for stored i8 and u8: stored = round(x * scale); 0: 1 */
    uint32_t M;      /* links a row in the upper layers, twice as many at the base; 2..256; 0: 16 */
    uint32_t ef_construction; /* candidates while building, 8..10,000; 0: 200 */
    uint32_t ef;              /* candidates of a search that names none, 1..100,000; 0: 64 */
    uint64_t seed;            /* of the layers of rows; with one thread equal seeds and equal
                               * insertions give equal graphs */
} omendb_schema;
#define OMENDB_SCHEMA_INIT                                                                         \
    {                                                                                              \
        sizeof(omendb_schema), 0, 0, 0, 0.0f, 0, 0, 0, 0                                           \
    }
OMENDB_API void omendb_schema_init(omendb_schema *schema);

/* Creates a collection. Durable when it returns, as a commit is.
 *
 * name:       1 to 255 bytes of UTF-8 without control characters. Copied.
 * schema:     dim must be given.
 * collection: receives the handle; NULL on failure.
 * Lifetime:   until omendb_collection_close.
 * Threads:    any.
 * Returns:    OMENDB_OK, OMENDB_EXISTS, OMENDB_INVALID (the message names the field),
 *             OMENDB_READONLY, OMENDB_FULL, OMENDB_IOERR, OMENDB_POISONED. */
OMENDB_API int omendb_collection_create(omendb *db, const char *name, const omendb_schema *schema,
                                        omendb_collection **collection);

/* Creates many collections of one schema in one commit: all of them, or none. They wait for the
 * device once, where one by one each does: ten thousand took 10 to 120 ms where that was measured,
 * in memory 6.
 *
 * count:   up to 100,000; 0: nothing happens.
 * names:   `count` of them, each as above. Copied.
 * schema:  of all; dim must be given.
 * Threads: any.
 * Returns: as omendb_collection_create (OMENDB_EXISTS also where a name is given twice; the message
 *          names the collection); OMENDB_TOOBIG. No handles are made. */
OMENDB_API int omendb_collection_create_batch(omendb *db, size_t count, const char *const *names,
                                              const omendb_schema *schema);

/* Opens a collection.
 *
 * name:       as above.
 * schema:     NULL, or compared with the stored one: metric and scalar always, other fields unless
 *             they are 0.
 * collection: receives a handle of its own for each call; NULL on failure.
 * Lifetime:   until omendb_collection_close.
 * Threads:    any.
 * Returns:    OMENDB_OK, OMENDB_NOTFOUND, OMENDB_MISMATCH (the message names the field),
 *             OMENDB_INVALID. */
OMENDB_API int omendb_collection_open(omendb *db, const char *name, const omendb_schema *schema,
                                      omendb_collection **collection);

/* Opens the collection, or creates it where it is missing. Parameters and returns of both, and
 * OMENDB_BUSY (others create and drop it without end); schema must not be NULL, and dim must be
 * given where it is missing. */
OMENDB_API int omendb_collection_open_or_create(omendb *db, const char *name,
                                                const omendb_schema *schema,
                                                omendb_collection **collection);

/* Deletes a collection with all its records. Durable when it returns.
 *
 * name:     as above. Open handles of the collection get OMENDB_DROPPED from then on, and must
 *           still be closed.
 * Threads:  any.
 * Returns:  OMENDB_OK, OMENDB_NOTFOUND, OMENDB_BUSY (a prepared transaction changes it),
 *           OMENDB_INVALID (the name), OMENDB_READONLY, OMENDB_FULL, OMENDB_IOERR,
 *           OMENDB_POISONED. */
OMENDB_API int omendb_collection_drop(omendb *db, const char *name);

/* Releases a handle. A collection of up to 1 MiB of vectors that nobody has open takes under 1 KB
 * of memory once its records are in segments and merged; neither files nor threads are its own.
 *
 * collection: NULL is OK.
 * Threads:    none may use the handle any more. */
OMENDB_API void omendb_collection_close(omendb_collection *collection);

/* Copies the name of collection number `index`, in the order of their bytes.
 *
 * index:    from 0. Others may create and drop between two calls.
 * name:     caller-owned, `capacity` bytes; 256 are always enough.
 * Threads:  any.
 * Returns:  OMENDB_OK, OMENDB_DONE (index is past the last), OMENDB_INVALID (capacity). */
OMENDB_API int omendb_collection_name(omendb *db, size_t index, char *name, size_t capacity);

/* Copies the schema of a collection, defaults filled in.
 *
 * schema:   struct_size must be set.
 * Threads:  any.
 * Returns:  OMENDB_OK, OMENDB_DROPPED. */
OMENDB_API int omendb_collection_schema(omendb_collection *collection, omendb_schema *schema);

/* Numbers of a collection, at one moment. */
typedef struct omendb_collection_stats {
    size_t struct_size;
    uint64_t records;        /* visible */
    uint64_t rows;           /* stored; deleted and replaced ones included */
    uint64_t unindexed_rows; /* of them, those that are searched exactly: not in a graph yet */
    uint64_t memtable_rows;  /* of them, those in memory and in the log */
    uint64_t segments;
    uint64_t segment_bytes; /* of files; of small collections, which share files, their vectors */
    uint64_t next_id;       /* the next automatic one */
    uint64_t hot_bytes;     /* codes and graphs of segments that were walked 100 times, copied from
                             * the mapping to huge pages by the background threads, where half of
                             * memory_limit holds them; counted in memory_bytes; given back when a
                             * writer, a checkpoint or a merge lacks memory */
    float recall;           /* what a search for 10 with schema.ef is promised to find, by the curve
                             * of the largest segment or of omendb_calibrate; 0: not calibrated */
    uint32_t recall_queries; /* in the sample behind it */
    uint64_t bytes; /* of visible records, whatever they take on disk: of each 8, its vector in the
                     * stored type, and its key and metadata as OMENDB_METADATA_MAX counts them.
                     * With commits that are not durable yet. This and what follows: omendb_limits
                     */
    /* These four are counted since opening, and from the moment on when the collection first had a
     * limit. */
    uint64_t queries;
    uint64_t writes;          /* records added, put, updated, deleted, when they are committed; of
                               * a commit in two phases when it is prepared */
    uint64_t queries_refused; /* with OMENDB_QUOTA; of a batch all */
    uint64_t writes_refused;
} omendb_collection_stats;
#define OMENDB_COLLECTION_STATS_INIT                                                               \
    {                                                                                              \
        sizeof(omendb_collection_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0.0f, 0, 0, 0, 0, 0, 0            \
    }

OMENDB_API void omendb_collection_stats_init(omendb_collection_stats *stats);

/* Fills the numbers of a collection.
 *
 * stats:    struct_size must be set.
 * Threads:  any.
 * Returns:  OMENDB_OK, OMENDB_DROPPED. */
OMENDB_API int omendb_collection_get_stats(omendb_collection *collection,
                                           omendb_collection_stats *stats);

/* What a collection may hold, and how often it may be used: so that many who share a database do
 * not take what is others'. Each limit is of one collection and touches no other; 0: no limit.
 *
 * SIZE. A commit that would take the collection over `records` or `bytes` is OMENDB_QUOTA, and
 * nothing of it is done; what others have committed counts, before it is durable, too. One that
 * adds nothing to a number is never refused for it: deleting, and putting what is not larger, work
 * also where a limit was set below what is there. A transaction is looked at when it commits, as a
 * whole; one in two phases when it is prepared: what it will add is reserved then, and
 * omendb_commit_prepared is not refused.
 *
 * RATES. Each rate is a bucket of tokens, which holds those of one second. A query takes one, a
 * write takes one, and they come back evenly: with 100 a second one every 10 ms. A call for which
 * there are too few is OMENDB_QUOTA; the sentence says after how many ms to try again, and nothing
 * waits inside of the library. A call that takes more than the bucket holds, such as a large batch,
 * passes when the bucket is full, and overdraws it: what follows waits until that has come back.
 *   A query is one search (a batch: as many as it has, all or none), one page, and one call of
 * omendb_facets_open, omendb_count, omendb_count_matching, omendb_scan, omendb_scan_matching or
 * omendb_delete_matching, done or failed; reading by id or key is none. A write is one record that
 * is added, put, updated or deleted, and takes its token when it is committed. A transaction that
 * is refused then has ended all the same, as after any other code of omendb_txn_commit, and its
 * changes are lost: what makes them must be able to make them again. To be refused early rather
 * than late commit in small parts, or without transactions.
 *   The buckets are in memory: opening anew begins with full ones, and each read_only handle has
 * its own. Where no rate was set since opening, a search only looks whether there is one. */
typedef struct omendb_limits {
    size_t struct_size;
    uint64_t records;            /* visible ones */
    uint64_t bytes;              /* as omendb_collection_stats.bytes */
    uint64_t queries_per_second; /* from 4,000,000,000 on no limit that is kept */
    uint64_t writes_per_second;  /* likewise */
} omendb_limits;
#define OMENDB_LIMITS_INIT                                                                         \
    {                                                                                              \
        sizeof(omendb_limits), 0, 0, 0, 0                                                          \
    }
OMENDB_API void omendb_limits_init(omendb_limits *limits);

/* Sets all limits of a collection, in place of those before. Durable when it returns, as a commit
 * is. Backups have them, and so has what omendb_salvage makes, where manifest or log tell them. The
 * rates begin with a full second.
 *
 * limits:   NULL, or all 0: none.
 * Threads:  any; what is under way is not touched.
 * Returns:  OMENDB_OK, OMENDB_READONLY, OMENDB_DROPPED, OMENDB_FULL, OMENDB_IOERR, OMENDB_POISONED.
 */
OMENDB_API int omendb_collection_set_limits(omendb_collection *collection,
                                            const omendb_limits *limits);

/* Copies the limits of a collection.
 *
 * limits:   struct_size must be set.
 * Threads:  any.
 * Returns:  OMENDB_OK, OMENDB_DROPPED. */
OMENDB_API int omendb_collection_get_limits(omendb_collection *collection, omendb_limits *limits);

/* -------------------------------- transactions */

enum { OMENDB_READ_WRITE = 0, OMENDB_READ_ONLY = 1 };

/* Begins a transaction over all collections of a database. A read-only one is a snapshot: it gives
 * the same answers whatever others commit (but a dropped collection is gone for it, too, and one
 * that was created since is empty); beginning costs nothing and waits for nobody, but while it is
 * open, rows that others delete are not dropped. omendb_get_stats tells how many they are and how
 * old the oldest transaction is; when it ends, they go in the background. A writing one keeps its
 * changes in memory, sees them itself, and applies them at commit: all or none; isolated as a
 * snapshot; when two change the same record, or a call without transaction does, the first to
 * commit wins. So of two that add the same new id both calls succeed, and the second commit is
 * OMENDB_CONFLICT; OMENDB_EXISTS means that the transaction sees the id. After a conflict the work
 * is done anew in a new transaction, from its first read on. Only what both write is compared: two
 * that read the same records and write different ones both commit; where that matters, let both put
 * one common record. A call that fails in a transaction changes nothing and leaves it as it was.
 * Automatic ids are given at the call; those of two transactions never collide. Under memory_limit
 * open and prepared transactions together may need half of what it leaves to writers, by an
 * estimate of what their commits take: about three times the vectors. What goes beyond is refused
 * by the call that would change a record, with OMENDB_TOOBIG, and can be committed without it.
 *
 * mode:     OMENDB_READ_ONLY or OMENDB_READ_WRITE.
 * txn:      receives the handle; NULL on failure.
 * Lifetime: until omendb_txn_commit or omendb_txn_rollback.
 * Threads:  any may begin; one at a time may use it.
 * Returns:  OMENDB_OK, OMENDB_READONLY (a writing one on a read-only handle), OMENDB_POISONED,
 *           OMENDB_INVALID. */
OMENDB_API int omendb_txn_begin(omendb *db, int mode, omendb_txn **txn);

/* Commits, and frees the transaction whatever is returned, but in a forked child. Durable when it
 * returns OMENDB_OK. A read-only one just ends.
 *
 * txn:      its cursors get OMENDB_MISUSE from then on.
 * Returns:  OMENDB_OK; OMENDB_CONFLICT (another commit changed one of its records since it began:
 *           begin again); OMENDB_DROPPED (a collection that it changed was dropped); OMENDB_BUSY (a
 *           prepared transaction has locked one of its records, which the calls that changed it do
 *           not tell; or as omendb_add: begin again later); OMENDB_QUOTA (a limit of a collection
 *           that it changed, which those calls do not tell either: begin again, where it is a rate
 *           after the time in the sentence); and the other errors of omendb_add. But for
 *           OMENDB_IOERR and OMENDB_POISONED nothing was done. */
OMENDB_API int omendb_txn_commit(omendb_txn *txn);

/* Drops the changes, and frees the transaction.
 *
 * txn:      NULL is OK; its cursors get OMENDB_MISUSE from then on. */
OMENDB_API void omendb_txn_rollback(omendb_txn *txn);

/* -------------------------------- prepared transactions */

/* A commit in two phases, over several databases or a database and another system (Gray, "Notes on
 * data base operating systems", 1978). First each participant prepares its part under a name that
 * the coordinator chose; then, when all have, the coordinator writes its decision down where it
 * lasts, and each commits, or each rolls back. Whoever finds a name that still waits after a crash
 * asks the coordinator and goes on; examples/two_phase.c is a whole one.
 *   Where the other system is a database that commits in one phase, such as SQLite, it is the
 * coordinator: in one transaction there write its part and a row with the name; prepare here; then
 * commit there, which is the decision; omendb_commit_prepared and omendb_forget_prepared here; at
 * last delete the row. After a crash, before other work, each name that waits here is committed
 * when its row is there, else rolled back; then every name is forgotten, and every row deleted.
 *   What is prepared lives on when the database is closed, and survives any crash, under
 * OMENDB_SYNC_NORMAL, too. Until its outcome nobody sees the changes, other writes to the same
 * records are OMENDB_BUSY, and the collections cannot be dropped. It takes memory, and its bytes
 * are written once more at each checkpoint, so outcomes should not be long in coming. An outcome is
 * remembered, with its name, until it is forgotten: about 300 bytes. */
#define OMENDB_PREPARED_NAME_MAX 255

/* What omendb_prepared_name tells. */
typedef enum omendb_prepared_state {
    OMENDB_PREPARED_WAITING = 1,
    OMENDB_PREPARED_COMMITTED = 2,
    OMENDB_PREPARED_ROLLED_BACK = 3
} omendb_prepared_state;

/* Ends the transaction as the first phase: what it changed is checked as by omendb_txn_commit,
 * written to the log, and locked until the outcome. Frees the transaction whatever is returned, but
 * for OMENDB_MISUSE, OMENDB_INVALID and OMENDB_READONLY. One without changes can be prepared, too.
 *
 * txn:      its cursors get OMENDB_MISUSE from then on.
 * name:     1 to 255 bytes of UTF-8 without control characters. Copied.
 * Returns:  OMENDB_OK; OMENDB_EXISTS (the name waits or is remembered); OMENDB_INVALID (the name);
 *           OMENDB_BUSY (another prepared transaction has locked one of the records); and what
 *           omendb_txn_commit returns. But for OMENDB_IOERR and OMENDB_POISONED nothing was done;
 *           after those it may be found waiting when the database is opened again. */
OMENDB_API int omendb_txn_prepare(omendb_txn *txn, const char *name);

/* The second phase: applies what was prepared, atomically. Durable when it returns OMENDB_OK, under
 * OMENDB_SYNC_NORMAL, too; so are omendb_rollback_prepared and omendb_forget_prepared. That it was
 * done already is OK.
 *
 * name:     as it was prepared.
 * Threads:  any.
 * Returns:  OMENDB_OK; OMENDB_NOTFOUND (never prepared, or forgotten); OMENDB_CONFLICT (it was
 *           rolled back); OMENDB_BUSY (another thread is at it, or as omendb_add); OMENDB_READONLY,
 *           OMENDB_NOMEM, OMENDB_FULL, OMENDB_IOERR, OMENDB_POISONED. After OMENDB_BUSY,
 *           OMENDB_NOMEM and OMENDB_FULL it waits on: call again. After OMENDB_IOERR and
 *           OMENDB_POISONED it waits, or is committed, when the database is opened again. */
OMENDB_API int omendb_commit_prepared(omendb *db, const char *name);

/* Drops what was prepared. That it was done already is OK. Otherwise as omendb_commit_prepared;
 * OMENDB_CONFLICT: it was committed. */
OMENDB_API int omendb_rollback_prepared(omendb *db, const char *name);

/* Forgets an outcome: the name can be used again.
 *
 * Threads:  any.
 * Returns:  OMENDB_OK; OMENDB_NOTFOUND (forgotten already, or never prepared); OMENDB_BUSY (it
 *           waits for its outcome); OMENDB_READONLY, OMENDB_FULL, OMENDB_IOERR, OMENDB_POISONED. */
OMENDB_API int omendb_forget_prepared(omendb *db, const char *name);

/* Copies the name of prepared transaction number `index`, in the order of their bytes; those whose
 * outcome is remembered count. What it tells is on the device, where `sync` is not OMENDB_SYNC_OFF:
 * a step that another thread is taking is waited for.
 *
 * index:    from 0. Others may come and go between two calls; forgetting one moves those behind it
 *           up: settle all, then forget number 0 until OMENDB_DONE.
 * name:     caller-owned, `capacity` bytes; OMENDB_PREPARED_NAME_MAX + 1 are always enough.
 * state:    NULL, or receives one of omendb_prepared_state.
 * Threads:  any.
 * Returns:  OMENDB_OK, OMENDB_DONE (index is past the last), OMENDB_INVALID (capacity),
 *           OMENDB_IOERR and OMENDB_POISONED (the newest step failed to reach the device, and may
 *           be undone by opening anew). */
OMENDB_API int omendb_prepared_name(omendb *db, size_t index, char *name, size_t capacity,
                                    int *state);

/* -------------------------------- records */

/* In place of an id: the next automatic one, which is one more than the largest id that the
 * collection ever had, from 0. Every id below it is legal; but after a very large one, such as a
 * hash or a random number, few or no automatic ones are left (OMENDB_FULL), even once it is
 * deleted: use one kind or the other in a collection. */
#define OMENDB_ID_AUTO UINT64_MAX

/* Limits of what a record carries beside its vector: bytes of a key, bytes of the name of a field,
 * fields, and bytes of key and metadata together as they are stored (names, values, and some 12
 * bytes a field). */
#define OMENDB_KEY_MAX      1024
#define OMENDB_FIELD_MAX    255
#define OMENDB_FIELDS_MAX   1024
#define OMENDB_METADATA_MAX 1048576

/* A record to be stored.
 *
 * KEYS. A record may have a text key beside its id, which no other record of the collection has:
 * omendb_find leads from it to the id. A record that is put by key alone (id: OMENDB_ID_AUTO) takes
 * the place of the one that has the key, and keeps its id; where none has it, it gets an automatic
 * id.
 *
 * METADATA is one JSON object (RFC 8259), without nesting: its values are texts, numbers, true,
 * false, null, and arrays of texts. Records need not have the same fields, and a field need not
 * have the same type in all of them; where values of different types are put in order it is: null,
 * false, true, numbers, texts. Numbers without fraction and exponent that fit 64 bits with sign are
 * kept as such, all others as IEEE 754 binary64, rounded to the nearest; one beyond its range is
 * OMENDB_INVALID, as are two fields of one name, and a field that is named _id or _key, which in
 * filters are the id and the key of the record. Other names that begin with '_' are stored, but in
 * a filter they must stand "in quotes", so that a mistyped _id is noticed. Dates compare right as
 * texts of ISO 8601 that are all written alike ("2024-05-31"), and as integers, such as seconds. */
typedef struct omendb_record {
    size_t struct_size;
    uint64_t id;          /* or OMENDB_ID_AUTO, which _INIT gives; 0 is an id */
    const void *vector;   /* must hold schema.dim elements, which no call can check; copied */
    uint32_t vector_type; /* omendb_scalar of `vector` */
    uint32_t reserved;    /* 0 */
    const char *key;      /* NULL: none; else 1 to OMENDB_KEY_MAX bytes; copied */
    const char *metadata; /* NULL: none; else a JSON object; copied */
} omendb_record;
#define OMENDB_RECORD_INIT                                                                         \
    {                                                                                              \
        sizeof(omendb_record), OMENDB_ID_AUTO, NULL, OMENDB_F32, 0, NULL, NULL                     \
    }
OMENDB_API void omendb_record_init(omendb_record *record);

/* What a field may be declared to hold. */
enum omendb_field_type {
    OMENDB_FIELD_ANY = 0,
    OMENDB_FIELD_I64 = 1,  /* integers of 64 bits */
    OMENDB_FIELD_F64 = 2,  /* numbers, integers included */
    OMENDB_FIELD_BOOL = 3, /* true, false */
    OMENDB_FIELD_TEXT = 4,
    OMENDB_FIELD_TEXTS = 5 /* arrays of texts */
};

typedef struct omendb_field {
    size_t struct_size;
    const char *name;  /* 1 to OMENDB_FIELD_MAX bytes of UTF-8 without control characters; not _id
                        * or _key */
    uint32_t type;     /* omendb_field_type */
    uint32_t required; /* 1: each record has it, and not as null */
} omendb_field;
#define OMENDB_FIELD_INIT                                                                          \
    {                                                                                              \
        sizeof(omendb_field), NULL, OMENDB_FIELD_ANY, 0                                            \
    }
OMENDB_API void omendb_field_init(omendb_field *field);

/* Declares fields of the metadata, in place of what was declared before. Nothing needs to be: it is
 * for those who want what is written compared with what they expect. Durable when it returns, as a
 * commit is; backups have it, and so has what omendb_salvage makes, where manifest or log tell it.
 *   It binds what is written from then on: a record that is added or put, and what an update makes
 * of one, as a whole. One that has a declared field of another type, or lacks one that is required,
 * is OMENDB_INVALID, with a sentence that names record, field and types. Null is as good as
 * missing. A transaction is compared at its calls, and once more when it commits, or is prepared,
 * if the declaration is another one by then. What is stored already, or prepared, stays as it is:
 * it can be read, found and deleted, and is compared when it is updated. Filters are not compared.
 *
 * count:    fields; 0 with strict 0: nothing is declared any more. At most OMENDB_FIELDS_MAX.
 * fields:   `count` of them, of one struct_size, in any order. Copied.
 * strict:   1: metadata has no other fields than these, not even as null.
 * Threads:  any. A record that is written meanwhile is compared with the one or the other.
 * Returns:  OMENDB_OK, OMENDB_INVALID (the message names the field), OMENDB_TOOBIG,
 *           OMENDB_READONLY, OMENDB_DROPPED, OMENDB_FULL, OMENDB_IOERR, OMENDB_POISONED. */
OMENDB_API int omendb_collection_declare(omendb_collection *collection, size_t count,
                                         const omendb_field *fields, int strict);

/* Tells how many fields are declared, and whether strictly.
 *
 * count, strict: NULL, or receive it.
 * Threads:  any.
 * Returns:  OMENDB_OK, OMENDB_DROPPED. */
OMENDB_API int omendb_collection_declaration(omendb_collection *collection, size_t *count,
                                             int *strict);

/* Copies declared field number `index`, in the order of the bytes of their names.
 *
 * index:    from 0. Others may declare between two calls.
 * field:    struct_size must be set; its name is then `name`.
 * name:     caller-owned, `capacity` bytes; OMENDB_FIELD_MAX + 1 are always enough.
 * Threads:  any.
 * Returns:  OMENDB_OK, OMENDB_DONE (index is past the last), OMENDB_INVALID (capacity),
 *           OMENDB_DROPPED. */
OMENDB_API int omendb_collection_field(omendb_collection *collection, size_t index,
                                       omendb_field *field, char *name, size_t capacity);

/* Adds one record.
 *
 * txn:      NULL: this call alone, durable when it returns; else a writing transaction: checked
 *           now, done at its commit.
 * record:   its vector is copied.
 * id:       NULL, or receives the id.
 * Threads:  any; commits of several threads are synced together.
 * Returns:  OMENDB_OK;
 *           OMENDB_EXISTS (the id or the key is taken);
 *           OMENDB_INVALID (NaN, infinity, zero under cosine, a norm that overflows, a value over
 *           the range of f16 or bf16; a key or metadata as above, with the byte that is wrong;
 *           metadata that is not as declared);
 *           OMENDB_BUSY (indexing was behind for longer than stall_timeout_ms; or, with txn NULL, a
 *           prepared transaction has locked the record or the key);
 *           OMENDB_FULL (of the disk, or of automatic ids);
 *           OMENDB_TOOBIG (also key and metadata over their limits), OMENDB_QUOTA, OMENDB_READONLY,
 *           OMENDB_DROPPED, OMENDB_CORRUPT, OMENDB_IOERR, OMENDB_POISONED. On any of them nothing
 *           was done; for OMENDB_IOERR and OMENDB_POISONED see point 4 of the contract. */
OMENDB_API int omendb_add(omendb_collection *collection, omendb_txn *txn,
                          const omendb_record *record, uint64_t *id);

/* Adds `count` records as one commit: all or none. Of none, NULL may stand for the arrays.
 *
 * txn:      as omendb_add.
 * ids:      `count` ids, no two equal; or NULL, or all OMENDB_ID_AUTO: automatic, ascending.
 * vectors:  count * dim elements without gaps (b1: each vector begins on a byte); copied.
 * vector_type: omendb_scalar of `vectors`.
 * new_ids:  NULL, or receives `count` ids; may be the array `ids`.
 * Threads:  any.
 * Returns:  as omendb_add (the message names the row), and OMENDB_TOOBIG over 1 GiB of vectors. */
OMENDB_API int omendb_add_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, const void *vectors, int vector_type,
                                uint64_t *new_ids);

/* Adds `count` records as one commit, each with its own vector, key and metadata: all or none.
 *
 * txn:      as omendb_add.
 * records:  `count` of them, all with the same struct_size, which is the distance from one to the
 *           next; ids as in omendb_add_batch: all given, or all OMENDB_ID_AUTO. No two may have the
 *           same id or the same key.
 * new_ids:  NULL, or receives `count` ids.
 * Threads:  any.
 * Returns:  as omendb_add_batch. */
OMENDB_API int omendb_add_records(omendb_collection *collection, omendb_txn *txn, size_t count,
                                  const omendb_record *records, uint64_t *new_ids);

/* Stores one record, replacing the one with the same id where there is one: its key and metadata,
 * too. Otherwise as omendb_add; OMENDB_CONFLICT: another record has the key. */
OMENDB_API int omendb_put(omendb_collection *collection, omendb_txn *txn,
                          const omendb_record *record, uint64_t *id);

/* Stores `count` records as one commit, replacing those with the same ids; of equal ids in the
 * batch the last one wins. Otherwise as omendb_add_batch. */
OMENDB_API int omendb_put_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, const void *vectors, int vector_type,
                                uint64_t *new_ids);

/* Stores `count` records as one commit, as omendb_put does each; of equal ids in the batch the last
 * one wins. No two may have the same key, and none a key that another record had before the call
 * (OMENDB_CONFLICT): to exchange keys takes a transaction. Otherwise as omendb_add_records. */
OMENDB_API int omendb_put_records(omendb_collection *collection, omendb_txn *txn, size_t count,
                                  const omendb_record *records, uint64_t *new_ids);

/* Changes fields of the metadata of one record, whose vector and key stay: a JSON merge patch (RFC
 * 7396) in which null removes a field. The vector is neither written nor linked anew: the log gets
 * key and metadata of the record, some 80 bytes beside, and so does memory until a checkpoint,
 * which writes them to a file of their own. Once an eighth of the rows of a segment was updated, or
 * their metadata take a quarter of its bytes, a merge writes it anew; until then filters are
 * compared with the metadata of such records one by one. What changes nothing writes nothing.
 *
 * txn:      as omendb_add.
 * metadata: the fields to be changed, a JSON object as in omendb_record.
 * Threads:  any; where two threads change different fields of one record without transactions both
 *           changes are kept.
 * Returns:  OMENDB_OK, OMENDB_NOTFOUND, OMENDB_INVALID (metadata, with the byte that is wrong),
 *           OMENDB_CONFLICT (without a transaction: others changed the record again and again), and
 *           the errors of omendb_add. */
OMENDB_API int omendb_update(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                             const char *metadata);

/* Deletes one record.
 *
 * txn:      as omendb_add.
 * Threads:  any.
 * Returns:  OMENDB_OK, OMENDB_NOTFOUND, and the errors of omendb_add. */
OMENDB_API int omendb_delete(omendb_collection *collection, omendb_txn *txn, uint64_t id);

/* Deletes those of `count` records that exist, as one commit.
 *
 * txn:      as omendb_add.
 * ids:      `count` ids; the same one may occur again.
 * deleted:  NULL, or receives how many existed.
 * Threads:  any.
 * Returns:  OMENDB_OK and the errors of omendb_add. */
OMENDB_API int omendb_delete_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                   const uint64_t *ids, size_t *deleted);

/* Finds the record that has a key.
 *
 * txn:      as omendb_get.
 * key:      1 to OMENDB_KEY_MAX bytes.
 * id:       NULL, or receives its id.
 * Threads:  any; waits for no writer.
 * Returns:  OMENDB_OK, OMENDB_NOTFOUND, OMENDB_INVALID (key), OMENDB_DROPPED, OMENDB_CORRUPT,
 *           OMENDB_IOERR. */
OMENDB_API int omendb_find(omendb_collection *collection, omendb_txn *txn, const char *key,
                           uint64_t *id);

/* Deletes the record that has a key.
 *
 * txn:      as omendb_add.
 * key:      as omendb_find.
 * Threads:  any.
 * Returns:  OMENDB_OK, OMENDB_NOTFOUND, OMENDB_INVALID (key), and the errors of omendb_add. */
OMENDB_API int omendb_delete_key(omendb_collection *collection, omendb_txn *txn, const char *key);

/* Copies the key of a record.
 *
 * txn:      as omendb_get.
 * key:      caller-owned, `capacity` bytes; OMENDB_KEY_MAX + 1 are always enough. Receives the key
 *           with a NUL, "" where the record has none; untouched on failure.
 * size:     NULL, or receives the bytes of the key without the NUL, also with OMENDB_TOOBIG.
 * Threads:  any; waits for no writer.
 * Returns:  OMENDB_OK, OMENDB_NOTFOUND, OMENDB_TOOBIG (capacity), OMENDB_DROPPED, OMENDB_CORRUPT,
 *           OMENDB_IOERR. */
OMENDB_API int omendb_get_key(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                              char *key, size_t capacity, size_t *size);

/* Copies the metadata of a record as a JSON object, its fields in the order of their names' bytes.
 *
 * txn:      as omendb_get.
 * fields:   NULL: all; else `field_count` names, of which those that the record has are told.
 * json:     caller-owned, `capacity` bytes. Receives the text with a NUL, "{}" where the record has
 *           none of the fields; untouched on failure.
 * size:     NULL, or receives the bytes of the text without the NUL, also with OMENDB_TOOBIG: call
 *           again with one more.
 * Threads:  any; waits for no writer.
 * Returns:  OMENDB_OK, OMENDB_NOTFOUND, OMENDB_TOOBIG (capacity), OMENDB_DROPPED, OMENDB_CORRUPT,
 *           OMENDB_IOERR. */
OMENDB_API int omendb_get_metadata(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                                   const char *const *fields, size_t field_count, char *json,
                                   size_t capacity, size_t *size);

/* Copies the vector stored under `id`.
 *
 * txn:         NULL: as of now; else as the transaction sees it.
 * vector_type: OMENDB_F32, or the stored type.
 * vector:      caller-owned, dim elements, untouched on failure; NULL: only tells whether the
 *              record is there.
 * Lifetime:    nothing is borrowed.
 * Threads:     any; waits for no writer.
 * Returns:     OMENDB_OK, OMENDB_NOTFOUND, OMENDB_INVALID (vector_type), OMENDB_DROPPED,
 *              OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_API int omendb_get(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                          int vector_type, void *vector);

/* Copies the vectors stored under many ids: as omendb_get of each, all at one moment, and several
 * times as fast, as the memory of many records is waited for together.
 *
 * txn:         as omendb_get.
 * ids:         `count` ids in any order; the same one may occur again.
 * vector_type: OMENDB_F32, or the stored type.
 * vectors:     caller-owned, count * dim elements: the vector of ids[i] goes to place i. Places of
 *              ids that are not there stay untouched. NULL: only tells which records are there.
 * found:       caller-owned, `count` bytes: 1 where the record is there, else 0. NULL: all must be
 *              there, or OMENDB_NOTFOUND names the first that is not.
 * Lifetime:    nothing is borrowed. On failure vectors and found may be filled in part.
 * Threads:     any; waits for no writer.
 * Returns:     OMENDB_OK (also with missing ids, given `found`), OMENDB_NOTFOUND, OMENDB_INVALID
 *              (vector_type), OMENDB_DROPPED, OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_API int omendb_get_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, int vector_type, void *vectors,
                                uint8_t *found);

/* Counts the visible records. It counts as a query for the rates of omendb_limits.
 *
 * txn:      as omendb_get.
 * count:    receives the number.
 * Threads:  any; waits for no writer.
 * Returns:  OMENDB_OK, OMENDB_QUOTA, OMENDB_DROPPED. */
OMENDB_API int omendb_count(omendb_collection *collection, omendb_txn *txn, uint64_t *count);

/* Counts the visible records that match a condition, which is asked once of each.
 *
 * txn:      as omendb_get.
 * filter:   NULL: all match. Beside `match` those count that pass both.
 * match:    as in omendb_query, called from this thread; NULL: all match.
 * context:  given to match.
 * count:    receives the number; 0 on failure.
 * Threads:  any; waits for no writer.
 * Returns:  OMENDB_OK, OMENDB_QUOTA, OMENDB_DROPPED, OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_API int omendb_count_matching(omendb_collection *collection, omendb_txn *txn,
                                     const omendb_filter *filter,
                                     int (*match)(void *match_context, uint64_t id), void *context,
                                     uint64_t *count);

/* Deletes the records that match a condition, as one commit: all or none.
 *
 * txn:      NULL, or one that writes: then those that match as it sees them are deleted with its
 *           commit. Without one they are those of the newest state when the call chooses; where one
 *           of them was changed before the commit, the call chooses again, up to 16 times, then it
 *           gives OMENDB_CONFLICT and nothing was done. Records that are added meanwhile stay.
 * filter:   NULL: `match` alone decides. Beside it those count that pass both.
 * match:    as in omendb_query, called from this thread; NULL: the filter alone decides. Without
 *           either the call is OMENDB_INVALID: a filter that did not compile is NULL, and must not
 *           delete all records. The filter TRUE does, or {} in the JSON form.
 * context:  given to match.
 * deleted:  NULL, or receives how many; 0 on failure.
 * Threads:  any.
 * Returns:  OMENDB_OK and the errors of omendb_delete_batch (OMENDB_QUOTA also as a query);
 *           OMENDB_INVALID (neither filter nor match); OMENDB_TOOBIG: the vectors of those that
 *           match have more than 1 GiB; OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_API int omendb_delete_matching(omendb_collection *collection, omendb_txn *txn,
                                      const omendb_filter *filter,
                                      int (*match)(void *match_context, uint64_t id), void *context,
                                      uint64_t *deleted);

/* Opens a cursor over the records with from <= id <= to, ascending, as they are at this moment: it
 * shows them also after others deleted them or dropped the collection.
 *
 * txn:      as omendb_get; after further changes in it the cursor may or may not show them.
 * rows:     receives the cursor; NULL on failure. Takes 16 bytes a record in the range that was
 *           written since the last checkpoint or in `txn`, and some 300 bytes a segment.
 * Lifetime: until omendb_rows_close.
 * Threads:  any may open; one at a time may use it.
 * Returns:  OMENDB_OK, OMENDB_QUOTA, OMENDB_DROPPED, OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_API int omendb_scan(omendb_collection *collection, omendb_txn *txn, uint64_t from,
                           uint64_t to, omendb_rows **rows);

/* As omendb_scan, of the records that match a filter.
 *
 * filter:   NULL: all. Held: it may be freed, but to bind it is OMENDB_BUSY until the cursor is
 *           closed.
 * rows:     takes up to 16 bytes more for each record of the segments that can match, where those
 *           are fewer than a 64th, and some 250 bytes for each condition and segment.
 * Returns:  as omendb_scan. */
OMENDB_API int omendb_scan_matching(omendb_collection *collection, omendb_txn *txn,
                                    const omendb_filter *filter, uint64_t from, uint64_t to,
                                    omendb_rows **rows);

/* Moves to the next record; at first, to the first. The index of ids is read on the way, so that
 * damage of it may be told here as well as by omendb_scan. On OMENDB_CORRUPT it stays where it is:
 * every further call gives the same. A cursor opened from a later id goes on behind the damage.
 *
 * id:          NULL, or receives the id.
 * vector_type: OMENDB_F32, or the stored type. Looked at only where a vector is copied: any will do
 *              with a NULL vector and after the last record.
 * vector:      NULL, or caller-owned, receives dim elements.
 * Returns:     OMENDB_OK, OMENDB_DONE (no further record), OMENDB_INVALID (vector_type),
 *              OMENDB_MISUSE (also after the transaction of the cursor ended), OMENDB_CORRUPT,
 *              OMENDB_IOERR. */
OMENDB_API int omendb_rows_next(omendb_rows *rows, uint64_t *id, int vector_type, void *vector);

/* Copies the key of the record that omendb_rows_next gave last; parameters as omendb_get_key.
 *
 * Returns:  OMENDB_OK, OMENDB_TOOBIG (capacity), OMENDB_MISUSE (there is no such record; after the
 *           transaction of the cursor ended), OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_API int omendb_rows_key(omendb_rows *rows, char *key, size_t capacity, size_t *size);

/* Copies its metadata; parameters as omendb_get_metadata, returns as omendb_rows_key. */
OMENDB_API int omendb_rows_metadata(omendb_rows *rows, const char *const *fields,
                                    size_t field_count, char *json, size_t capacity, size_t *size);

/* Closes a cursor. NULL is OK. */
OMENDB_API void omendb_rows_close(omendb_rows *rows);

/* -------------------------------- filters */

/* A condition on records, compiled; on the fields of their metadata, and on _id and _key, which are
 * the id of the record and its key.
 *
 *     section = 'editors' AND installed_size < ?1 AND tag IN ('c', 'rust') AND NOT essential
 *     {"section": "editors", "installed_size": {"$lt": {"$param": 1}},
 *      "tag": {"$in": ["c", "rust"]}, "$not": {"essential": true}}
 *
 * AS TEXT, conditions are those of SQL, joined by AND, OR, NOT (which bind as in SQL) and
 * parentheses:
 *
 *   field = value         also == <> != < <= > >=, and with the sides the other way round
 *   field IN (a, b)       NOT IN. Also IN ?1, where ?1 is bound to an array of texts
 *   field BETWEEN a AND b             NOT BETWEEN. a and b are inside
 *   field LIKE 'prefix%'  NOT LIKE. Case matters. The pattern may end with one %, which stands for
 *                         any text; elsewhere % and _ are refused. LIKE '5\%' ESCAPE '\' is the
 *                         text 5%: behind the character that ESCAPE names % and _ are themselves
 *   field CONTAINS value  'value' IN field. The same as =, for arrays of texts
 *   field IS value        IS NOT. As =, but never unknown: null is null and differs from all else.
 *                         IS NULL, IS NOT NULL
 *   field                 true, or a number other than 0
 *
 *   value   12   -1.5e3   'it''s'   TRUE   FALSE   NULL   ?   ?3   :name
 *   field   letters, digits, '_' and '.', the first a letter; any other name, and words of the
 *           language, "in quotes" (where "" is one). _id and _key, with or without quotes
 *
 * A value may stand where a field does (?1 IS NULL OR section = ?1), but no field where a value
 * does: two fields are not compared. The words of the language may be written in small letters.
 *
 * AS JSON, where the text begins with '{': an object, all members of which must hold, is
 * {"field": value} or {"field": {operator: ..., ...}}, {"$and": [...]}, {"$or": [...]} of such
 * objects, {"$not": {...}}. The operators: $eq $ne $lt $lte $gt $gte $contains with a value; $in,
 * $nin with an array of values, or a parameter; $between with [a, b]; $prefix with a text; $exists
 * with true or false: IS NOT NULL, IS NULL; $not with an object of operators. null as a value, and
 * that of $eq and $ne, is IS NULL and IS NOT NULL; elsewhere it is refused. Parameters are
 * {"$param": 1}, {"$param": "name"}. {} matches all. An empty $and or $or is refused.
 *
 * MEANING. What a record lacks is null. As in SQL a comparison with null is unknown, so is NOT of
 * it, and a record matches where the whole is true: neither a = 1 nor NOT a = 1 finds records
 * without a. Values are compared in this order, whatever their types: false, true, numbers
 * (integers and reals by value, exactly), texts (by bytes). So true is not 1, and 5 < 'a'.
 *   Of an array of texts a condition holds where it holds for any of the texts; <>, NOT IN, NOT
 * LIKE, NOT BETWEEN and IS NOT are the NOT of what they negate, and hold where that holds for none.
 * An empty array is not null, and none of its texts is anything: NOT tag = 'c' finds it.
 *   IN () is false, also of null. Where a list of IN has a null, a value that is not in the list is
 * neither IN nor NOT IN, as in SQL.
 *   Indexes lead to the records by their fields, by _id, and by _key where it is compared by = or
 * IN; also where such conditions are joined by AND and OR. But keys are hashed, so that they lie in
 * no order: LIKE, <, BETWEEN and <> on _key are tested record by record. What the keys of one
 * document begin with should have a field of its own.
 *
 * PARAMETERS are numbered from 1 on: ?3 is number 3, ? and the first :name of a name take the
 * number after the largest so far. One that is not bound is null: a comparison with it then finds
 * nothing, so a program that gets its filters from elsewhere compares the number of values that it
 * has with omendb_filter_parameter_count.
 *
 * LIMITS: 1 MiB of text, 4096 conditions, 64 open parentheses or objects, 32,766 parameters, 64 MiB
 * for what one is bound to: OMENDB_TOOBIG.
 *
 * One filter serves all collections of its database.
 *
 * THREADS. Any number of threads may search with one filter at once, as long as none binds, or
 * frees, meanwhile. */

/* Compiles a filter.
 *
 * text:     see above. Not kept.
 * filter:   receives the handle; NULL on failure.
 * Lifetime: until omendb_filter_free, which is due before omendb_close.
 * Returns:  OMENDB_OK; OMENDB_TOOBIG; OMENDB_INVALID, with a sentence that names the byte (from 0
 *           on) and what was expected there, and two more lines that show the place:
 *
 *               filter: byte 17: expected a value after '<'
 *                   installed_size < AND tag IN ('c')
 *                                    ^ */
OMENDB_API int omendb_filter_compile(omendb *db, const char *text, omendb_filter **filter);

/* Frees a filter; pages and cursors that are open go on with it. NULL is OK. */
OMENDB_API void omendb_filter_free(omendb_filter *filter);

/* The number of the parameter :name; 0: there is none. The colon may be left out. */
OMENDB_API int omendb_filter_parameter(const omendb_filter *filter, const char *name);

/* How many parameters the filter has: the largest of their numbers. 0: none, or `filter` is not one
 * that is open. */
OMENDB_API int omendb_filter_parameter_count(const omendb_filter *filter);

/* Gives a parameter a value, which it keeps until it gets another one.
 *
 * index:    the number of the parameter.
 * value, text, texts: the value; text must be UTF-8, f64 finite. u64 is for ids above INT64_MAX,
 *           which stay exact; fields of the metadata are compared with it as with a real. An array,
 *           of `count` texts, is for IN, and as what IS NULL asks about. Copied.
 * Threads:  none may use the filter meanwhile.
 * Returns:  OMENDB_OK; OMENDB_INVALID (no such parameter; not finite; not UTF-8; an array that not
 *           only IN uses; a pattern that LIKE does not take, or no text for it); OMENDB_TOOBIG;
 *           OMENDB_BUSY (open pages or cursors use the filter). On failure the parameter keeps the
 *           value that it had. */
OMENDB_API int omendb_filter_bind_null(omendb_filter *filter, int index);
OMENDB_API int omendb_filter_bind_bool(omendb_filter *filter, int index, int value);
OMENDB_API int omendb_filter_bind_i64(omendb_filter *filter, int index, int64_t value);
OMENDB_API int omendb_filter_bind_u64(omendb_filter *filter, int index, uint64_t value);
OMENDB_API int omendb_filter_bind_f64(omendb_filter *filter, int index, double value);
OMENDB_API int omendb_filter_bind_text(omendb_filter *filter, int index, const char *text);
OMENDB_API int omendb_filter_bind_texts(omendb_filter *filter, int index, const char *const *texts,
                                        size_t count);

/* -------------------------------- search */

/* Bits of omendb_explain.warnings: why the recall of this search is less sure than promised. */
enum {
    OMENDB_EXPLAIN_UNCALIBRATED = 1,  /* a graph was walked without a curve, or with an effort that
                                         no curve tells of: an ef below the least one that was
                                         measured, a stretch for fewer than 10 or more than 100
                                         hits, beside an ef below 900, or of inner products */
    OMENDB_EXPLAIN_RECALL_BEYOND = 2, /* query.recall is above what the curve reaches: the greatest
                                         effort that was measured was taken */
    OMENDB_EXPLAIN_K_BEYOND = 4       /* query.k is above what was measured (100): an estimate */
};

/* Bits of omendb_explain.path: how hits were looked for. Each segment and memtable goes its own. */
enum {
    OMENDB_PATH_SCAN = 1,           /* compared row by row; under a condition: all rows were tested,
                                       and those that match compared */
    OMENDB_PATH_WALK = 2,           /* a graph was walked, and its rest compared row by row */
    OMENDB_PATH_WALK_THEN_SCAN = 4, /* a walk was given up, as it would have cost more than a scan,
                                       or found too few; then as OMENDB_PATH_SCAN, or, where that
                                       is told too, as OMENDB_PATH_MATCHES */
    OMENDB_PATH_MATCHES = 8         /* the rows that match were known: only those were compared */
};

/* What a search did; filled where omendb_query.explain points. */
typedef struct omendb_explain {
    size_t struct_size;
    uint64_t graph_rows;   /* rows in the graphs that were walked */
    uint64_t scanned_rows; /* rows compared one by one */
    uint64_t expanded;     /* graph nodes whose links were read */
    uint64_t distances;    /* computed, of both kinds; for scanned rows up to twice */
    uint64_t segments;     /* searched, memtables included */
    uint64_t time_us;
    uint64_t ef;       /* the largest that a graph was walked with, of walks that a stretch ends
                        * the bound; 0: none was */
    float recall;      /* promised (see omendb_query), also to a search by ef or stretch: the least
                        * over the graphs walked, or compared by codes as walks do, whose curves
                        * tell; 1: all was compared; 0: none
                        * tells */
    uint32_t warnings; /* OMENDB_EXPLAIN_*, 0: none */
    uint64_t matches_tested; /* records of which it was found out whether they match: by asking, or,
                              * where all were gone through, by an index; 0 without a condition */
    float selectivity;       /* the share of records that match, 1 without a condition: exact where
                              * all were tested; else of a sample, or, where a walk ended before one
                              * was worth it, of those tested near the query */
    uint32_t path;           /* OMENDB_PATH_*, 0: there was nothing to search */
} omendb_explain;
#define OMENDB_EXPLAIN_INIT                                                                        \
    {                                                                                              \
        sizeof(omendb_explain), 0, 0, 0, 0, 0, 0, 0, 0.0f, 0, 0, 0.0f, 0                           \
    }

OMENDB_API void omendb_explain_init(omendb_explain *explain);

/* What is asked.
 *
 * CONDITIONS. `filter` and `match` say which records may be hits. You set nothing else: the search
 * chooses how it finds them. Whatever they answer, k hits come when k records match; `exact` is
 * exact; and over many queries of one kind the mean recall is not more than 0.005 below that of
 * the same effort without a condition, with one exception: where a condition hides whole regions
 * of the space, and more than a few records match, queries whose own region is hidden find less.
 * With 60 clusters, of which 42 % of the records match, an ef of 64 found 0.956 in place of 0.983;
 * `recall` = 0.98 found 0.983 there, and elsewhere up to 0.014 less than without the condition.
 *   How it chooses: the segments keep metadata as columns, which tell how many records can match a
 * filter, and which. Where comparing those costs less than a walk, only they are compared. Where
 * that takes long, a short walk comes first, and goes on if they turn out to lie about the query.
 * Vectors of more than a MiB are compared as walks compare them, by codes of 8 bits, and the best
 * again by the vectors, if a curve tells what that finds; where the codes turn out to be too
 * coarse, all are. Where more match, a search walks the graph through all records and keeps those
 * that do. It gives the walk up when that has cost what a scan would, because few match or those
 * near the query do not; far earlier, where a sample of the records and the walk so far tell that
 * it will. Then it compares what the columns list, or tests every record: so it costs at most
 * about twice that scan. What is in memory only is tested record by record, by its metadata, but
 * for an _id and a _key, which are looked up. The queries of a batch share what was found out
 * about their condition. omendb_explain tells what was done.
 *
 * RECALL. `recall` names what is to be found in place of the effort: the share of the true k
 * nearest, 0.95 of them for instance. It is kept by measuring. A merge that builds graph (those of
 * the background, omendb_optimize) holds 200 to 500 of its rows back, asks for their neighbours
 * before it inserts them, and compares the answers of one or two dozen efforts, for k = 10 and for
 * k = 100, with those of a scan; between the two k it interpolates, below 10 it takes that of 10.
 * The curve goes with the segment until its rows have doubled. A search takes in each segment the
 * effort at which the lower 95 % bound of the sample reaches `recall` with the fewest distances
 * computed: mostly a `stretch`, which spends little on easy queries and much on hard ones, else an
 * `ef`; for inner products and for k above 100 always an `ef`.
 *   Promised: over queries like the records themselves the mean is at least recall - 0.005.
 *   Not promised: the recall of one query, only `exact` has that; and the mean over queries of
 * another kind, such as texts against pictures, or vectors that the records say nothing about: give
 * omendb_calibrate a sample of those.
 *   Where nothing was measured yet (a segment of less than 4,000 new rows, or one that a checkpoint
 * made of what had its graph in memory already; what is in memory), a graph gets the greatest
 * effort that another segment of the collection would get. Without any curve it is a guess that
 * promises nothing, and is not below schema.ef: an ef of k + sqrt(10 * k) * log(1 - recall)^2, with
 * the natural logarithm and a k of at least 10. That is 100, 222 and 487 for k = 10 and a recall of
 * 0.95, 0.99 and 0.999, with which half a million vectors of SIFT find 0.984, 0.997 and 0.9998.
 * omendb_optimize measures. Small collections are compared as a whole, which finds all.
 *   omendb_explain tells what was promised and warns of what is outside of the measured range.
 *
 * EXAMPLES. `positive_ids` and `negative_ids` are stored records that hits shall be like, or
 * unlike. The query is then p + (p - n), where p and n are the means of their vectors, each of
 * length 1 under OMENDB_COSINE; without negative ones it is p. Of bits each is 1 where that is
 * above a half: with positive ones alone, where most have it. An id that stands there twice counts
 * twice. All examples are left out of the hits. Negative ones alone are OMENDB_INVALID: far from
 * them lies too much; so are examples whose p + (p - n) is zero under OMENDB_COSINE or overflows
 * the stored type.
 *
 * GROUPS. With `group_by`, the name of a field, at most group_size hits have the same value of that
 * field: chapters of one book do not fill the list. k counts hits, not groups; for k groups of one
 * hit each leave group_size 0. Hits come in the order of distance, not group by group;
 * omendb_get_metadata tells the value of each.
 *   Think of all records that match in the order of their distance: each is taken if its value has
 * room, until k are taken. With `exact` the hits are those; without it some may be overlooked, as
 * in any search.
 *   Values are the same where a filter says so: 1 and 1.0 are. Null and absent are one value; the
 * filter `field IS NOT NULL` leaves it out. A record with an array of texts belongs to the group of
 * each text, and is taken if all of them have room; one with an empty array belongs to none, and is
 * always taken. With _key the value is the key; with _id nothing is left out.
 *   The nearest records are searched for first. Where too many of them have the same values,
 * another search follows among the records with other values, and so on: mostly one or two rounds,
 * never more than k / group_size + 1, but for arrays. Each round has the effort of a search;
 * omendb_explain adds them up, and tells the selectivity of the first. */
typedef struct omendb_query {
    size_t struct_size;
    const void *vector;   /* must hold schema.dim elements, which no call can check; NULL: that of
                           * the stored record `id`, which is then left out of the hits */
    uint64_t id;          /* used, and left out, only when vector is NULL; _INIT gives
                           * OMENDB_ID_AUTO, no record; 0 is an id */
    uint32_t vector_type; /* omendb_scalar of `vector` */
    uint32_t ef;          /* candidates kept while walking, at most 100,000: more finds more and
                           * takes longer; at least k are kept; 0: schema.ef. Where the rows are in
                           * several segments each is walked with a share, so that together they
                           * find about what one graph of all rows would */
    size_t k;             /* hits wanted, at least 1; _INIT gives 10 */
    uint32_t exact;       /* 1: compares every record, whatever ef, stretch and recall are */
    uint32_t use_radius;  /* 1: only hits with distance <= radius, the k nearest of them */
    float radius;         /* in the metric's terms: under OMENDB_L2 the square of the distance; 0
                           * where use_radius is 0 */
    float recall;         /* 0: ef decides; else above 0 and at most 1, with ef and stretch 0. 1: as
                           * high as the measured curve goes, which is not all: use exact */
    omendb_explain *explain; /* NULL, or filled on success */
    uint64_t timeout_us;     /* the call, of one query or of a batch, gives up after this long with
                              * OMENDB_TIMEOUT; 0: never. Looked at before each segment and
                              * memtable, every 65,536 rows of a scan, every 4,096 records of the
                              * transaction's own, and before each query of a batch. Not inside of
                              * the walk of one graph, which goes to its end: 1 ms for each 1,000
                              * of ef, over 100,000 vectors of 384 dimensions */
    float stretch; /* 1 or more: a walk also ends when the nearest candidate left is farther than
                    * this many times the k-th best hit so far, as the metric is computed (the
                    * square under OMENDB_L2): 1.1 to 1.4 finds what an ef of 30 to 400 finds, with
                    * less work on easy queries (distance-adaptive beam search, arXiv 2505.15636).
                    * ef then is only the bound, 2,000 when it is 0. 0: ef alone decides */
    uint32_t reserved; /* 0 */
    /* NULL: all records. Else whether the record may be a hit: 0 if not, any other number if so.
     * Called for at most as many records as there are, in no order, at most once for each stored
     * row (in each round, with group_by); for the same id it must answer the same during one call
     * of the library. For the queries of a batch together it is called about once for each row and
     * thread, from several threads at once. It must not call the database. */
    int (*match)(void *match_context, uint64_t id);
    void *match_context;         /* given to match; NULL without one */
    const omendb_filter *filter; /* NULL: all records; else only those that match it; beside
                                  * `match` those that pass both */
    const char *key; /* in place of `id`, where that is not set: the key of the stored record whose
                      * vector is taken, and which is left out; beside a vector it is refused */
    const uint64_t *positive_ids; /* in place of vector, id and key: see EXAMPLES; NULL without */
    size_t positive_count;        /* at most OMENDB_EXAMPLES_MAX */
    const uint64_t *negative_ids; /* beside positive ones; NULL without */
    size_t negative_count;        /* at most OMENDB_EXAMPLES_MAX */
    const char *group_by;         /* NULL; else a field of the metadata, or _key: see GROUPS */
    size_t group_size; /* hits that each of its values may have; 0: 1; 0 without group_by */
} omendb_query;
#define OMENDB_EXAMPLES_MAX 1024
#define OMENDB_QUERY_INIT                                                                          \
    {                                                                                              \
        sizeof(omendb_query), NULL, OMENDB_ID_AUTO, OMENDB_F32, 0, 10, 0, 0, 0.0f, 0.0f, NULL, 0,  \
            0.0f, 0, NULL, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL, 0                             \
    }
OMENDB_API void omendb_query_init(omendb_query *query);

/* Finds the records nearest to a vector.
 *
 * txn:       NULL: as of now, which includes every commit that returned before; else as the
 *            transaction sees it.
 * query:     its vector is converted to the stored type first, as a record's is.
 * ids:       caller-owned, query->k places: filled in the order of distance, equal ones by id. Of
 *            several records at the distance of the last one an exact search gives those with the
 *            lowest ids, wherever they are stored.
 * distances: NULL, or caller-owned, query->k places, in the metric's terms (omendb_metric).
 * count:     receives how many places are filled: without a radius and groups, min(k, visible
 *            records that match).
 * Lifetime:  nothing is borrowed. Read hits in the transaction of the search, a READ_ONLY one if no
 *            other: with NULL a writer may have deleted or changed them since.
 * Threads:   any; waits for no writer.
 * Returns:   OMENDB_OK, OMENDB_INVALID (k of 0, NaN, zero under cosine, a recall outside of 0..1 or
 *            beside an ef, a key or examples beside a vector), OMENDB_NOTFOUND (the record to
 *            compare with, or an example), OMENDB_TOOBIG (more than OMENDB_EXAMPLES_MAX examples),
 *            OMENDB_TIMEOUT, OMENDB_QUOTA, OMENDB_DROPPED, OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_API int omendb_search(omendb_collection *collection, omendb_txn *txn,
                             const omendb_query *query, uint64_t *ids, float *distances,
                             size_t *count);

/* Searches for `count` vectors, over the threads of the database and this one. All see the same
 * state of the database.
 *
 * txn:       as omendb_search.
 * query:     its vector, id, key and explain are not used; it must have no examples.
 * vectors:   count * dim elements of query->vector_type, without gaps.
 * ids:       caller-owned, count * k places, row by row; places past a row's hits get
 *            OMENDB_ID_AUTO.
 * distances: NULL, or caller-owned, count * k places; past a row's hits infinity.
 * counts:    NULL, or caller-owned, `count` places: hits of each row.
 * Lifetime:  nothing is borrowed.
 * Threads:   any; waits for no writer.
 * Returns:   as omendb_search; OMENDB_TOOBIG (sizes whose product overflows). On an error the
 *            arrays hold nothing of use. */
OMENDB_API int omendb_search_batch(omendb_collection *collection, omendb_txn *txn,
                                   const omendb_query *query, const void *vectors, size_t count,
                                   uint64_t *ids, float *distances, size_t *counts);

/* Searches for many queries, each with its own vector, k, filter and effort, over the threads of
 * the database and this one. All see the same state of the database.
 *
 * txn:       as omendb_search.
 * queries:   `count` of them, all with the same struct_size, which is the distance from one to the
 *            next; each as of omendb_search. timeout_us is counted from the beginning of the call.
 *            A `match` may be called from any of these threads. An explain of one must be that of
 *            no other.
 * ids:       caller-owned, count * K places, where K is the largest k of the queries, row by row:
 *            those of query i begin at place i * K; places past its hits get OMENDB_ID_AUTO.
 * distances: NULL, or caller-owned, count * K places; past a row's hits infinity.
 * counts:    NULL, or caller-owned, `count` places: hits of each query.
 * Lifetime:  nothing is borrowed.
 * Threads:   any; waits for no writer.
 * Returns:   as omendb_search, where the sentence names the number of the query, from 0 on;
 *            OMENDB_TOOBIG (sizes whose product overflows). The first error ends the call; the
 *            arrays then hold nothing of use. */
OMENDB_API int omendb_search_many(omendb_collection *collection, omendb_txn *txn,
                                  const omendb_query *queries, size_t count, uint64_t *ids,
                                  float *distances, size_t *counts);

/* Opens a query whose hits are given page by page, as they are at this moment: commits that come
 * later change nothing, and the handle shows them also after others dropped the collection. No hit
 * is given twice. With `exact` the pages one after the other are what omendb_search gives for all
 * of them together. Otherwise each page has the nearest of those found and not given yet, and one
 * that was overlooked may come in a later page, although it is nearer than some of an earlier one;
 * all records that match have come when the pages end. The first page takes about what
 * omendb_search takes for twice its hits; n pages together what it takes for one to five times all
 * their hits. There is no offset to begin at: what lies before it must be found all the same, and
 * without a handle it shifts with each commit.
 *
 * txn:      as omendb_search; after further changes in it the pages may or may not show them.
 * query:    as of omendb_search, but that k, explain and timeout_us are not used, though k must not
 *           be 0. Copied. Its filter is held: it may be freed, but to bind it is OMENDB_BUSY until
 *           the pages are closed. What `match` needs must stay until then; group_by is
 *           OMENDB_UNSUPPORTED.
 * pages:    receives the handle; NULL on failure. Takes the vector, and up to some 150 bytes for
 *           each hit that was given; keeps what it shows from being given back, as cursors do.
 * Lifetime: until omendb_pages_close.
 * Threads:  any may open; one at a time may use it.
 * Returns:  as omendb_search, but OMENDB_TIMEOUT and OMENDB_QUOTA: nothing is searched for yet. */
OMENDB_API int omendb_pages_open(omendb_collection *collection, omendb_txn *txn,
                                 const omendb_query *query, omendb_pages **pages);

/* Gives the next hits.
 *
 * k:          hits of this page, at least 1; it may differ from page to page.
 * timeout_us: as of omendb_query, for this call. After OMENDB_TIMEOUT the same page can be asked
 *             for again.
 * ids:        caller-owned, k places: filled in the order of distance, equal ones by id.
 * distances:  NULL, or caller-owned, k places.
 * count:      receives how many places are filled: k but at the end, where there are fewer left.
 * Returns:    OMENDB_OK, OMENDB_DONE (no further hit; count is 0), OMENDB_INVALID (k of 0),
 *             OMENDB_TIMEOUT, OMENDB_QUOTA, OMENDB_MISUSE (also after the transaction of the pages
 *             ended), OMENDB_CORRUPT, OMENDB_IOERR. On failure no hit is lost. */
OMENDB_API int omendb_pages_next(omendb_pages *pages, size_t k, uint64_t timeout_us, uint64_t *ids,
                                 float *distances, size_t *count);

/* Closes pages. NULL is OK. */
OMENDB_API void omendb_pages_close(omendb_pages *pages);

/* -------------------------------- facets */

/* The type of a value. */
typedef enum omendb_value_type {
    OMENDB_VALUE_BOOL = 1,
    OMENDB_VALUE_I64 = 2,
    OMENDB_VALUE_F64 = 3,
    OMENDB_VALUE_TEXT = 4
} omendb_value_type;

/* A value of a field, and how many records have it. */
typedef struct omendb_facet {
    size_t struct_size;
    uint64_t count;   /* records */
    const char *text; /* of a text: UTF-8 with a NUL behind it, until the facets are closed; else
                       * NULL */
    size_t text_size; /* its bytes without that NUL; one of the text itself may be among them */
    int64_t i64;      /* of I64; of BOOL: 1 is true */
    double f64;       /* of F64; of I64 and BOOL the nearest */
    uint32_t type;    /* omendb_value_type */
} omendb_facet;
#define OMENDB_FACET_INIT                                                                          \
    {                                                                                              \
        sizeof(omendb_facet), 0, NULL, 0, 0, 0.0, 0                                                \
    }
OMENDB_API void omendb_facet_init(omendb_facet *facet);

/* Counts by the values of a field the records that match a condition: what a list of choices beside
 * a search shows. All is counted when it returns; nothing that comes later changes it.
 *   A record with an array of texts counts once for each distinct text of it. Values are the same
 * where a filter says so: 1 and 1.0 are, and are told as one of them.
 *   The columns of segments tell values without reading the metadata: some 10 to 40 ns a record
 * that matches. What is in memory only, or has no column (more than 512 fields of a segment, texts
 * of which there is no end), is read record by record.
 *
 * txn:      as omendb_get.
 * filter:   NULL: all match. Beside `match` those count that pass both.
 * match:    as in omendb_query, called from this thread; NULL: all match.
 * context:  given to match.
 * field:    its name. OMENDB_INVALID: _id and _key, which are different in each record.
 * limit:    the values that are told, those with the most records; 0: all.
 * facets:   receives the handle; NULL on failure. Counting takes up to some 250 bytes, and what is
 *           told 56 bytes and its text, for each distinct value.
 * Lifetime: until omendb_facets_close.
 * Threads:  any may open; one at a time may use it. Waits for no writer.
 * Returns:  OMENDB_OK, OMENDB_INVALID (field), OMENDB_QUOTA, OMENDB_DROPPED, OMENDB_CORRUPT,
 *           OMENDB_IOERR. */
OMENDB_API int omendb_facets_open(omendb_collection *collection, omendb_txn *txn,
                                  const omendb_filter *filter,
                                  int (*match)(void *match_context, uint64_t id), void *context,
                                  const char *field, size_t limit, omendb_facets **facets);

/* Tells the next value: those of the most records first, of equally many in the order of METADATA.
 * Its text stays until the facets are closed.
 *
 * facet:    struct_size must be set.
 * Returns:  OMENDB_OK, OMENDB_DONE (no further value). */
OMENDB_API int omendb_facets_next(omendb_facets *facets, omendb_facet *facet);

/* Tells what was counted, whatever the limit; each may be NULL.
 *
 * records:  that match.
 * nulls:    of them, those that lack the field or have null in it.
 * values:   distinct ones.
 * Returns:  OMENDB_OK. */
OMENDB_API int omendb_facets_totals(omendb_facets *facets, uint64_t *records, uint64_t *nulls,
                                    uint64_t *values);

/* Closes facets. NULL is OK. */
OMENDB_API void omendb_facets_close(omendb_facets *facets);

/* -------------------------------- measuring recall */

/* Measures recall on the caller's own queries, for omendb_query.recall to keep from then on: those
 * that users really ask, if they are not like the records. Each is answered exactly, then with one
 * or two dozen efforts for k = 10 and for k = 100. The curve is kept with the collection, in place
 * of those of merges, until the collection or its largest segment has doubled; a later call
 * replaces it. It is best made after omendb_optimize: a merge of segments of like size makes their
 * graphs larger, and what was measured on the small ones then finds less, within the doubling.
 * Until then it cannot be undone, only replaced. It takes about 20 ms a query over 200,000 vectors
 * of 384 dimensions on two cores, in proportion to the records: for the truth each query is
 * compared with all of them.
 *
 * queries:     count * dim elements of query_type, without gaps. Not kept. They must not be records
 *              of the collection, which no call can check: links lead to those, and the promise is
 *              then far too good. Where stored vectors of SIFT find 0.995, others find 0.953.
 * count:       OMENDB_CALIBRATE_MIN to OMENDB_CALIBRATE_MAX; 500 to 2,000 give a narrow bound.
 * query_type:  omendb_scalar of `queries`.
 * progress:    NULL, or called now and then, from this thread, with steps done and steps in all; it
 *              must not call the database. An answer other than 0 ends the work with OMENDB_OK, and
 *              the curves that were in force stay.
 * context:     given to progress.
 * Threads:     any; readers and writers go on. Uses the threads of the database and this one.
 * Returns:     OMENDB_OK (also where the collection is so small that it is compared as a whole:
 *              then nothing is kept), OMENDB_INVALID (count, a query as in omendb_search),
 *              OMENDB_READONLY, OMENDB_DROPPED, OMENDB_FULL, OMENDB_CORRUPT, OMENDB_IOERR,
 *              OMENDB_POISONED. */
#define OMENDB_CALIBRATE_MIN 50
#define OMENDB_CALIBRATE_MAX 100000
OMENDB_API int omendb_calibrate(omendb_collection *collection, const void *queries, size_t count,
                                int query_type,
                                int (*progress)(void *context, uint64_t done, uint64_t total),
                                void *context);

#ifdef __cplusplus
}
#endif

#endif
