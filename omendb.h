/* OmenDB: an embeddable vector database in C. This header is the manual.
 *
 * Copyright 2026 The OmenDB Authors. SPDX-License-Identifier: Apache-2.0
 *
 * Build:   cc -std=c11 app.c omendb.c -lm -lpthread          (gcc or clang, no -m flags)
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
 *     omendb_add(docs, NULL, &record, NULL);
 *     omendb_search(docs, NULL, &query, ids, distances, &found);
 *     omendb_collection_close(docs);   omendb_close(db);
 *
 * THE CONTRACT
 *  1. A commit acknowledged under OMENDB_SYNC_FULL survives kill -9, an operating-system crash and
 * power loss, if the device honours flush.
 *  2. After any crash the database is a prefix of the committed transactions that contains every
 *     acknowledged one. No holes, no halves.
 *  3. Damage that is there when a block is first read gives OMENDB_CORRUPT with file and offset,
 * never memory unsafety. Damage inside the last unsynced group of the log cannot be told from a
 * torn tail and is cut.
 *  4. After a failed sync the handle refuses writes (OMENDB_POISONED) until the database is
 * reopened; a commit that returned OMENDB_IOERR may or may not be there after reopening.
 *  5. No call aborts, exits, prints, installs a signal handler or blocks for ever.
 *
 * HANDLES. `omendb` is one open database, `omendb_collection` a named set of vectors in it,
 * `omendb_txn` a transaction, `omendb_rows` a cursor. A call that fails to make a handle stores
 * NULL. Every handle is released by its own close call, children before parents.
 *
 * THREADS. Any number of threads may use one handle at once, unless a call says otherwise. A search
 * never waits for a writer. One omendb_txn or omendb_rows is for one thread at a time. A handle
 * must not be closed while another thread uses it.
 *
 * RETURNS. Functions that can fail return OMENDB_OK (0) or a positive code of `omendb_code`;
 * omendb_errmsg() then has the sentence for people. Every function may return OMENDB_MISUSE (NULL
 * where none is allowed, a closed or foreign handle, a call in a forked child) and OMENDB_NOMEM;
 * they are not repeated at each.
 *
 * STRUCTS carry their size in `struct_size`; set it with the _INIT macro or the *_init function
 * (for callers without a C compiler). Fields are only ever appended. A field left 0 means its
 * default.
 *
 * TEXT is UTF-8, NUL-terminated. Names of collections: 1 to 255 bytes, no control characters.
 *
 * CAVEATS
 *  - fork: in the child every call on an inherited handle returns OMENDB_MISUSE; only omendb_close
 * may be called, which frees memory and touches no file. Open the database anew in the child.
 *  - OMENDB_IO_MAP (the default) maps files: a device error, or another program that truncates
 * them, faults the process (SIGBUS). Use OMENDB_IO_PREAD for untrusted or network files.
 *  - Network file systems often lack working locks: keep databases on local ones.
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
#define OMENDB_ABI_VERSION    1   /* changes when a compiled caller must be compiled again */
#define OMENDB_FORMAT_VERSION 1   /* of the files; see amalgamation/format.h */

/* ------------------------------------------------------------------------------------------------
 * results */

/* Values are only ever appended. */
typedef enum omendb_code {
    OMENDB_OK = 0,
    OMENDB_INVALID = 1,  /* an argument's value: NaN, wrong dimension, k of 0, malformed name ... */
    OMENDB_NOTFOUND = 2, /* no such record, collection or database */
    OMENDB_EXISTS = 3,   /* the id or the collection is already there */
    OMENDB_MISMATCH = 4, /* a schema differs from the stored one; the message names the field */
    OMENDB_BUSY = 5, /* another process or handle has it, children are open, or a stall timed out;
                        nothing was done */
    OMENDB_CONFLICT = 6,    /* another transaction committed a change to the same record first */
    OMENDB_READONLY = 7,    /* a write through a read-only handle or transaction */
    OMENDB_MISUSE = 8,      /* a call that the contract forbids */
    OMENDB_NOMEM = 9,       /* no memory, or memory_limit reached; nothing was done */
    OMENDB_FULL = 10,       /* the disk is full, or ids are used up; nothing was done */
    OMENDB_IOERR = 11,      /* the operating system refused; the message names file and reason */
    OMENDB_PERMISSION = 12, /* no permission to a file or directory */
    OMENDB_CORRUPT = 13,    /* stored bytes are damaged; the message names file and offset */
    OMENDB_FORMAT = 14,     /* not an OmenDB database, or one of a later format */
    OMENDB_POISONED = 15,   /* a sync failed earlier; close and reopen */
    OMENDB_DROPPED = 16,    /* the collection was dropped */
    OMENDB_TOOBIG = 17, /* over a stated limit: one batch, one dimension, rows of a collection */
    OMENDB_UNSUPPORTED = 18, /* this platform or vfs cannot do it */
    OMENDB_DONE = 19         /* a cursor has no further row */
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

/* ------------------------------------------------------------------------------------------------
 * element types, metrics */

/* Element type of vectors, stored or given. Converting to the stored type: f32 to f16 and bf16
 * rounds to nearest even and refuses overflow; to i8 and u8 stores saturate(round(x * scale)), and
 * reading back divides by scale; to b1 stores x > 0. */
typedef enum omendb_scalar {
    OMENDB_F32 = 0,  /* IEEE 754 binary32 */
    OMENDB_F16 = 1,  /* IEEE 754 binary16 */
    OMENDB_BF16 = 2, /* upper half of binary32 */
    OMENDB_I8 = 3,
    OMENDB_U8 = 4,
    OMENDB_B1 = 5 /* bits, packed from the least significant of each byte: (dim + 7) / 8 bytes */
} omendb_scalar;

/* Distances: smaller is nearer, whatever the metric. */
typedef enum omendb_metric {
    OMENDB_L2 = 0,            /* squared Euclidean distance, in the units of the vectors given */
    OMENDB_COSINE = 1,        /* 1 - cos(a, b), in 0..2; a zero vector is refused */
    OMENDB_INNER_PRODUCT = 2, /* -dot(a, b) */
    OMENDB_HAMMING = 3        /* number of differing bits; for OMENDB_B1, and only for it */
} omendb_metric;

/* ------------------------------------------------------------------------------------------------
 * memory and files from the host */

/* Where a database takes its memory. Each function gets `context`. `alloc` and `resize` may return
 * NULL; `release` gets the size that was asked for. Memory is aligned for max_align_t. Threads:
 * called from any thread at once. */
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
 * repeated inside); `read` past the end is OMENDB_IOERR. Threads: called from any thread at once.
 * omendb_default_vfs() gives the one of the operating system; copy it to wrap it. */
typedef struct omendb_vfs {
    size_t struct_size;
    void *context;
    /* Opens the directory; `create` makes the last component with mode 0700 if it is missing (and
     * syncs its parent). */
    int (*open_directory)(void *context, const char *path, int create, void **directory);
    void (*close_directory)(void *context, void *directory);
    int (*sync_directory)(void *context, void *directory);
    /* Calls `each` for every entry other than "." and "..", in any order; stops at its first
     * non-zero answer. */
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

/* ------------------------------------------------------------------------------------------------
 * database */

typedef struct omendb omendb;
typedef struct omendb_collection omendb_collection;
typedef struct omendb_txn omendb_txn;
typedef struct omendb_rows omendb_rows;

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
        1 /* files are read into memory that counts in memory_limit, and verified before use */
};

enum { OMENDB_THREADS_AUTO = -1 };

/* How a database is opened. */
typedef struct omendb_options {
    size_t struct_size;
    uint64_t memory_limit; /* bytes that the database may allocate; 0: no limit. Over it calls
                              return OMENDB_NOMEM */
    uint64_t wal_limit;    /* bytes of log after which a checkpoint is made; 0: 64 MiB */
    uint64_t tail_limit;   /* bytes of vectors not yet in a graph, a collection; 0: 8 MiB (a scan of
                              about 1 ms). Raise it for bulk loads */
    uint32_t stall_timeout_ms; /* how long a writer may be slowed by the two limits before
                                  OMENDB_BUSY; 0: 10,000 */
    int32_t threads; /* background threads; OMENDB_THREADS_AUTO: the cores of this process; 0: none,
                        see omendb_work */
    uint32_t sync;   /* OMENDB_SYNC_* */
    uint32_t io;     /* OMENDB_IO_* */
    uint32_t read_only;    /* 1: no lock for writing, no write of any kind; see omendb_refresh */
    uint32_t must_exist;   /* 1: OMENDB_NOTFOUND instead of creating a database */
    const omendb_vfs *vfs; /* NULL: the operating system's. Borrowed until close */
    const omendb_allocator *allocator; /* NULL: malloc. Copied */
    /* Called with a line of text worth noting (a torn log tail was cut, a background step failed);
     * NULL: nothing. From any thread. */
    void (*log)(void *context, int code, const char *message);
    void *log_context;
} omendb_options;

#define OMENDB_OPTIONS_INIT                                                                        \
    {                                                                                              \
        sizeof(omendb_options), 0, 0, 0, 0, OMENDB_THREADS_AUTO, 0, 0, 0, 0, NULL, NULL, NULL,     \
            NULL                                                                                   \
    }
OMENDB_API void omendb_options_init(omendb_options *options);

/* Opens a database, creating it if it is missing.
 *
 * path:     a directory; ":memory:" is a database without files that goes at close. The parent must
 * exist. options:  NULL for defaults. db:       receives the handle, or NULL. Returns:  OMENDB_OK,
 * OMENDB_BUSY (open elsewhere, in this process or another), OMENDB_NOTFOUND (read_only or
 * must_exist and not there), OMENDB_FORMAT (a file, or a directory that holds other things, or a
 * later format), OMENDB_CORRUPT, OMENDB_PERMISSION, OMENDB_IOERR, OMENDB_FULL, OMENDB_INVALID. */
OMENDB_API int omendb_open(const char *path, const omendb_options *options, omendb **db);

/* Writes what is only in the log and in memory to segments, and closes. Never builds graph: bounded
 * by the bytes to write.
 *
 * db:       NULL is OK. Freed unless OMENDB_BUSY or OMENDB_MISUSE is returned.
 * Returns:  OMENDB_OK; OMENDB_BUSY while collections, transactions or cursors are open (nothing
 * happens); any error of the last checkpoint (the handle is freed all the same, committed data
 * stays in the log). */
OMENDB_API int omendb_close(omendb *db);

/* For languages with garbage collectors: marks the handle closed; the last child that goes closes
 * it. Later calls on it are OMENDB_MISUSE. NULL is OK. */
OMENDB_API void omendb_release(omendb *db);

/* A read-only handle moves on to what the writer has made durable since. On a writing handle:
 * nothing. Returns: OMENDB_OK, OMENDB_BUSY if read-only transactions or cursors are open,
 * OMENDB_CORRUPT, OMENDB_IOERR, OMENDB_NOTFOUND. */
OMENDB_API int omendb_refresh(omendb *db);

/* Makes the log short: seals what is in memory into segment files and syncs them. Bounded by the
 * bytes to write. Returns: OMENDB_OK, OMENDB_READONLY, OMENDB_FULL, OMENDB_IOERR, OMENDB_POISONED.
 */
OMENDB_API int omendb_checkpoint(omendb *db);

/* Finishes all graphs, drops deleted rows, and merges every collection into one segment. Searches
 * and writes go on meanwhile. May take as long as building the graph of all rows that were not in
 * the largest segment. progress: NULL, or called now and then from this thread with rows done and
 * rows in all (of the current collection); a non-zero answer stops the work with OMENDB_OK, leaving
 * what is finished. Returns: OMENDB_OK, OMENDB_READONLY, OMENDB_FULL, OMENDB_IOERR, OMENDB_CORRUPT,
 * OMENDB_POISONED. */
OMENDB_API int omendb_optimize(omendb *db,
                               int (*progress)(void *context, uint64_t done, uint64_t total),
                               void *context);

/* Does background work in this thread for about `budget_us` microseconds (one step at least;
 * UINT64_MAX: until none is left). For databases with threads = 0. more: NULL, or receives 1 if
 * work is left. Returns: OMENDB_OK or the error of a step. */
OMENDB_API int omendb_work(omendb *db, uint64_t budget_us, int *more);

/* Writes a consistent copy to a new directory while readers and writers go on: the database as it
 * is at one commit. path: must not exist, or be an empty directory. On failure what was written is
 * removed. Returns: OMENDB_OK, OMENDB_EXISTS, OMENDB_FULL, OMENDB_IOERR, OMENDB_CORRUPT (a source
 * block is damaged), OMENDB_PERMISSION. */
OMENDB_API int omendb_backup(omendb *db, const char *path);

/* Verifies every checksum and every structural invariant (bounds of links, reachable entry points,
 * id indexes against rows, overlays, catalog, log). report:   NULL, or called with one line for
 * each problem, from this thread. problems: NULL, or receives how many there are. Returns:
 * OMENDB_OK (even when `problems` is not 0), OMENDB_IOERR. */
OMENDB_API int omendb_check(omendb *db, void (*report)(void *context, const char *line),
                            void *context, uint64_t *problems);

/* Numbers of the whole database, at this moment. */
typedef struct omendb_stats {
    size_t struct_size;
    uint64_t commits; /* number of the newest visible commit */
    uint64_t collections;
    uint64_t records;      /* visible records in all collections */
    uint64_t memory_bytes; /* allocated now through the allocator */
    uint64_t memory_peak_bytes;
    uint64_t mapped_bytes;  /* of files, not counted above */
    uint64_t file_bytes;    /* of segments, overlays and logs */
    uint64_t wal_bytes;     /* to be replayed if the process died now */
    uint64_t written_bytes; /* to files since opening */
    uint64_t syncs;         /* of files and directories since opening */
    uint64_t commit_groups; /* syncs of the log that acknowledged commits */
    uint64_t checkpoints;
    uint64_t merges;         /* of segments */
    uint64_t merges_rebuilt; /* of them, those whose recall made a fresh build necessary */
    uint64_t open_transactions;
} omendb_stats;
#define OMENDB_STATS_INIT                                                                          \
    {                                                                                              \
        sizeof(omendb_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0                          \
    }

/* Returns: OMENDB_OK. */
OMENDB_API int omendb_database_stats(omendb *db, omendb_stats *stats);

/* ------------------------------------------------------------------------------------------------
 * collections */

/* What a collection holds and how its graph is built (HNSW: Malkov and Yashunin, arXiv 1603.09320).
 */
typedef struct omendb_schema {
    size_t struct_size;
    uint32_t dim;    /* elements of a vector (bits for OMENDB_B1), 1..65,535 */
    uint32_t metric; /* omendb_metric; 0: L2 */
    uint32_t scalar; /* omendb_scalar: stored type; 0: f32 */
    float scale;     /* for stored i8 and u8: stored = round(x * scale); 0: 1 */
    uint32_t M;      /* links a node in upper layers, twice as many at the base, 2..256; 0: 16 */
    uint32_t ef_construction; /* candidates while building, 8..10,000; 0: 200 */
    uint32_t ef;              /* default candidates of a search, 1..100,000; 0: 64 */
    uint64_t seed; /* of the layer of each node; equal seeds and one thread give equal graphs */
} omendb_schema;
#define OMENDB_SCHEMA_INIT                                                                         \
    {                                                                                              \
        sizeof(omendb_schema), 0, 0, 0, 0.0f, 0, 0, 0, 0                                           \
    }
OMENDB_API void omendb_schema_init(omendb_schema *schema);

/* Creates a collection. Durable when it returns, as a commit is.
 * Returns: OMENDB_OK, OMENDB_EXISTS, OMENDB_INVALID (the message names the field), OMENDB_READONLY,
 * and the errors of omendb_add. */
OMENDB_API int omendb_collection_create(omendb *db, const char *name, const omendb_schema *schema,
                                        omendb_collection **collection);

/* Opens a collection.
 * schema:  NULL, or compared with the stored one: fields left 0 are not compared.
 * Returns: OMENDB_OK, OMENDB_NOTFOUND, OMENDB_MISMATCH, OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_API int omendb_collection_open(omendb *db, const char *name, const omendb_schema *schema,
                                      omendb_collection **collection);

/* The one or the other. */
OMENDB_API int omendb_collection_open_or_create(omendb *db, const char *name,
                                                const omendb_schema *schema,
                                                omendb_collection **collection);

/* Deletes a collection with its records. Open handles then get OMENDB_DROPPED and must still be
 * closed. Returns: OMENDB_OK, OMENDB_NOTFOUND, OMENDB_READONLY, and the errors of omendb_add. */
OMENDB_API int omendb_collection_drop(omendb *db, const char *name);

/* Releases the handle. NULL is OK. */
OMENDB_API void omendb_collection_close(omendb_collection *collection);

/* Name number `index`, in the order of bytes, of the collections.
 * name: caller-owned, at least 256 bytes.
 * Returns: OMENDB_OK, OMENDB_DONE when index is past the last. */
OMENDB_API int omendb_collection_name(omendb *db, size_t index, char *name, size_t capacity);

/* The schema, defaults filled in. Returns: OMENDB_OK, OMENDB_DROPPED. */
OMENDB_API int omendb_collection_schema(omendb_collection *collection, omendb_schema *schema);

/* Numbers of a collection, at this moment. */
typedef struct omendb_collection_stats {
    size_t struct_size;
    uint64_t records; /* visible */
    uint64_t rows;    /* stored, deleted and replaced ones included */
    uint64_t
        unindexed_rows; /* of them, those searched exactly because they are not in a graph yet */
    uint64_t memtable_rows;
    uint64_t segments;
    uint64_t segment_bytes; /* of files */
    uint64_t next_id;       /* the next automatic one */
} omendb_collection_stats;
#define OMENDB_COLLECTION_STATS_INIT                                                               \
    {                                                                                              \
        sizeof(omendb_collection_stats), 0, 0, 0, 0, 0, 0, 0                                       \
    }
/* Returns: OMENDB_OK, OMENDB_DROPPED. */
OMENDB_API int omendb_collection_statistics(omendb_collection *collection,
                                            omendb_collection_stats *stats);

/* ------------------------------------------------------------------------------------------------
 * transactions */

enum { OMENDB_READ_WRITE = 0, OMENDB_READ_ONLY = 1 };

/* Begins a transaction over all collections of the database. A read-only one is a snapshot: it
 * gives the same answers whatever others commit; it costs nothing to begin and never blocks, but
 * keeps deleted rows from being dropped while it is open. A writing one gathers changes, sees them
 * itself, and applies them at commit: all or none, isolated as a snapshot, first committer wins.
 * mode:    OMENDB_READ_ONLY or OMENDB_READ_WRITE.
 * Returns: OMENDB_OK, OMENDB_READONLY (a writing one on a read-only handle), OMENDB_POISONED. */
OMENDB_API int omendb_txn_begin(omendb *db, int mode, omendb_txn **txn);

/* Commits and frees the transaction, whatever is returned.
 * Returns: OMENDB_OK; OMENDB_CONFLICT (another transaction changed one of the records since this
 * one began; nothing was done) and the errors of omendb_add. */
OMENDB_API int omendb_txn_commit(omendb_txn *txn);

/* Drops the changes and frees the transaction. NULL is OK. */
OMENDB_API void omendb_txn_rollback(omendb_txn *txn);

/* ------------------------------------------------------------------------------------------------
 * records */

/* Every id below UINT64_MAX is legal. An automatic one is one more than the largest ever used in
 * the collection, from 0. */
#define OMENDB_ID_AUTO UINT64_MAX

typedef struct omendb_record {
    size_t struct_size;
    uint64_t id;          /* or OMENDB_ID_AUTO */
    const void *vector;   /* schema.dim elements */
    uint32_t vector_type; /* omendb_scalar of `vector` */
} omendb_record;
#define OMENDB_RECORD_INIT                                                                         \
    {                                                                                              \
        sizeof(omendb_record), OMENDB_ID_AUTO, NULL, OMENDB_F32                                    \
    }
OMENDB_API void omendb_record_init(omendb_record *record);

/* Adds one record.
 *
 * txn:      NULL: this call alone, durable when it returns; else a writing transaction: checked
 * now, done at its commit. id:       NULL, or receives the id. Lifetime: the vector is copied.
 * Returns:  OMENDB_OK; OMENDB_EXISTS (the id is taken); OMENDB_INVALID (NaN, infinity, zero under
 * cosine, a norm that overflows, a value that the stored type cannot hold); OMENDB_CONFLICT;
 * OMENDB_BUSY (slowed for longer than stall_timeout_ms); OMENDB_FULL; OMENDB_READONLY;
 * OMENDB_DROPPED; OMENDB_IOERR; OMENDB_POISONED. On any of them nothing was done, but after
 * OMENDB_IOERR and OMENDB_POISONED see point 4 of the contract. */
OMENDB_API int omendb_add(omendb_collection *collection, omendb_txn *txn,
                          const omendb_record *record, uint64_t *id);

/* Adds `count` records as one commit: all or none.
 *
 * ids:      `count` ids, or NULL: all automatic. An id may not occur twice.
 * vectors:  count * dim elements of `vector_type`, without gaps (each row of b1 begins on a byte).
 * new_ids:  NULL, or `count` ids received. May be the same array as `ids`.
 * Returns:  as omendb_add, and OMENDB_TOOBIG over 1 GiB of vectors. The message names the row. */
OMENDB_API int omendb_add_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, const void *vectors, int vector_type,
                                uint64_t *new_ids);

/* As omendb_add and omendb_add_batch, but a record with the same id is replaced. In a batch the
 * last of equal ids wins. */
OMENDB_API int omendb_put(omendb_collection *collection, omendb_txn *txn,
                          const omendb_record *record, uint64_t *id);
OMENDB_API int omendb_put_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, const void *vectors, int vector_type,
                                uint64_t *new_ids);

/* Deletes one record. Returns: OMENDB_OK, OMENDB_NOTFOUND, and those of omendb_add. */
OMENDB_API int omendb_delete(omendb_collection *collection, omendb_txn *txn, uint64_t id);

/* Deletes those of `count` records that exist, as one commit.
 * deleted: NULL, or receives how many existed. Returns: as omendb_add. */
OMENDB_API int omendb_delete_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                   const uint64_t *ids, size_t *deleted);

/* Copies the vector stored under `id` into `vector`.
 *
 * vector_type: OMENDB_F32, or the stored type.
 * vector:      caller-owned, dim elements; NULL: only tells whether the record is there. Untouched
 * on failure. Returns:     OMENDB_OK, OMENDB_NOTFOUND, OMENDB_INVALID (a vector_type that cannot be
 * given), OMENDB_CORRUPT, OMENDB_IOERR, OMENDB_DROPPED. */
OMENDB_API int omendb_get(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                          int vector_type, void *vector);

/* Number of visible records. Returns: OMENDB_OK, OMENDB_DROPPED. */
OMENDB_API int omendb_count(omendb_collection *collection, omendb_txn *txn, uint64_t *count);

/* Opens a cursor over the records with from <= id <= to, in the order of ids, as they are at this
 * moment. Costs 16 bytes a record in that range while open. Returns: OMENDB_OK, OMENDB_DROPPED,
 * OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_API int omendb_scan(omendb_collection *collection, omendb_txn *txn, uint64_t from,
                           uint64_t to, omendb_rows **rows);

/* Moves to the next (at first: the first) record.
 * id:      NULL, or receives the id.
 * vector:  NULL, or receives dim elements of `vector_type` (as omendb_get).
 * Returns: OMENDB_OK, OMENDB_DONE (no further record), OMENDB_CORRUPT, OMENDB_IOERR,
 * OMENDB_INVALID. */
OMENDB_API int omendb_rows_next(omendb_rows *rows, uint64_t *id, int vector_type, void *vector);

/* Closes the cursor. NULL is OK. */
OMENDB_API void omendb_rows_close(omendb_rows *rows);

/* ------------------------------------------------------------------------------------------------
 * search */

/* What a search did; filled where omendb_query.explain points. */
typedef struct omendb_explain {
    size_t struct_size;
    uint64_t graph_rows;   /* rows that lie in the graphs that were walked */
    uint64_t scanned_rows; /* rows compared one by one */
    uint64_t expanded;     /* graph nodes whose links were read */
    uint64_t distances;    /* computed in all */
    uint64_t segments;     /* searched, memtables included */
    uint64_t time_us;
} omendb_explain;
#define OMENDB_EXPLAIN_INIT                                                                        \
    {                                                                                              \
        sizeof(omendb_explain), 0, 0, 0, 0, 0, 0                                                   \
    }

/* What is asked. */
typedef struct omendb_query {
    size_t struct_size;
    const void *
        vector; /* dim elements; NULL: the stored record `id`, which is then left out of the hits */
    uint64_t id;
    uint32_t vector_type; /* omendb_scalar of `vector` */
    uint32_t ef;    /* candidates kept while walking: more is slower and finds more; at least k is
                       used; 0: schema.ef */
    size_t k;       /* hits wanted, 1.. */
    uint32_t exact; /* 1: compares every record */
    uint32_t use_radius; /* 1: only hits with distance <= radius, the nearest k of them */
    float radius;
    omendb_explain *explain; /* NULL, or filled */
} omendb_query;
#define OMENDB_QUERY_INIT                                                                          \
    {                                                                                              \
        sizeof(omendb_query), NULL, OMENDB_ID_AUTO, OMENDB_F32, 0, 10, 0, 0, 0.0f, NULL            \
    }
OMENDB_API void omendb_query_init(omendb_query *query);

/* Finds the records nearest to a vector.
 *
 * ids, distances: caller-owned, query->k places each, filled in order of distance, equal ones by
 * id; distances may be NULL. count:          receives how many hits there are: min(k, visible
 * records) without a radius. Lifetime:       nothing is borrowed. Threads: never waits for a
 * writer. Returns:        OMENDB_OK, OMENDB_INVALID (k of 0, NaN, zero under cosine),
 * OMENDB_NOTFOUND (the record to compare with), OMENDB_CORRUPT, OMENDB_IOERR, OMENDB_DROPPED. */
OMENDB_API int omendb_search(omendb_collection *collection, omendb_txn *txn,
                             const omendb_query *query, uint64_t *ids, float *distances,
                             size_t *count);

/* Searches for `count` vectors at once, over the threads of the database and this one.
 *
 * query:          its vector, id and explain are not used.
 * vectors:        count * dim elements of query->vector_type.
 * ids, distances: count * k places, row by row; places past a row's hits get OMENDB_ID_AUTO and
 * infinity. distances may be NULL. counts:         `count` places, or NULL. Returns:        as
 * omendb_search; on an error the arrays hold nothing of use. All see the same state of the
 * database. */
OMENDB_API int omendb_search_batch(omendb_collection *collection, omendb_txn *txn,
                                   const omendb_query *query, const void *vectors, size_t count,
                                   uint64_t *ids, float *distances, size_t *counts);

#ifdef __cplusplus
}
#endif

#endif
