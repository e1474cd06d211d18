/* database.h: what an open database is made of, who owns it and what guards it.
 *
 *   struct omendb      files, log, threads, the list of collections
 *   struct collection  one collection while the database is open; handles point at it
 *   struct version     immutable list of the memtables and segments that make up a collection now,
 *                      with their overlays; reference-counted
 *   struct segment     one part of a segment file, its tombstones, its walkable view;
 *                      reference-counted
 *
 * LOCK ORDER: take from left to right; before waiting for one, let go of those to its right.
 *   maintenance_mutex -> sync leadership -> commit_mutex -> work, txn, sync, list mutex
 *
 *   maintenance_mutex  whoever publishes a manifest: checkpoint, install of a merge; collecting of
 *                      files.
 *   sync leadership    `syncing`: one thread at a time syncs the log, or replaces it. Guarded by
 *                      sync_mutex, waited for on sync_condition.
 *   commit_mutex       appending to the log and applying: memtables, tombstones, catalog, versions,
 *                      next ids. Never held over a sync of commits; held over the small rest when
 *                      the log is rotated.
 *   sync_mutex         durable_commit, poisoned
 *   txn_mutex          the lists of transactions and of open files
 *   edit_mutex         edit_losers; nothing else is held when it is taken
 *   work mutex         queues and jobs (work.c)
 *   list mutex         open databases of the process (database.c)
 *
 * A reader takes none of them: it pins, copies the version pointer, adds a reference, unpins
 * (version.c), then reads `visible_commit`.
 *
 * OTHER LOCKS are taken last, and nothing is waited for under them: those of a graph (256
 * stripes, entry_lock: graph_build.c; building in bulk: graph_bulk_internal.h), of a file that
 * is read into memory (blocks.c), of vfs_memory.c.
 *
 * CONDITIONS: sync_condition with sync_mutex (leadership is free, durable_commit was raised,
 * poisoned), that of work.c with the work mutex (a queue, a job, the right to merge, stopping).
 * edit_condition with edit_mutex (edit_losers fell to 0).
 * All are broadcast under their mutex, so nobody misses one between looking and waiting.
 *
 * SPINS: version_wait_for_readers, for a pin that lasts a handful of instructions;
 * memtable_seal, for the insertion of a row that is under way; version_pin, for one of 64
 * slots. Polls, with a limit of time: hot_give_back, work_await_merge, work_throttle.
 *
 * ATOMICS: who writes, who reads, and why the order is enough. "sc": sequentially consistent,
 * as those without an order are. What only counts or asks for work publishes nothing, and any
 * order does. Those of other modules stand there in the same form: tombstones.h, memtable.h,
 * overlay.h, graph_internal.h, graph.h (rows_store), idmap.h, blocks.c, storage.h, wal.h,
 * memory.h, work.c, checksum.c, kernels.c.
 *
 *   references          of all kinds: added to relaxed by who holds one, or pins; given back
 *                       acq_rel, so that who gets to 0 sees all that the others did before.
 *   version             exchanged sc under commit_mutex; loaded sc by readers between marking a
 *                       pin and unmarking it (sc); version.c has the argument.
 *   pins[].busy         exchanged and stored sc by readers, loaded sc by who replaces a
 *                       version: who reads the 0 sees the reference that was added before it.
 *   visible_commit      raised sc, as leader or under commit_mutex, after all of the commit was
 *                       applied under commit_mutex: who loads n sees all of n. Loaded under
 *                       txn_mutex where it becomes a snapshot, so that txn_oldest is never
 *                       above one that is about to enter the list.
 *   checkpoint_commit   stored sc under maintenance_mutex once the manifest is durable; loaded
 *                       sc by merges: an old value drops less.
 *   edit_losers         changed under edit_mutex; loaded relaxed by who is about to edit: who
 *                       misses one competes once more.
 *   poisoned            stored sc once, under sync_mutex, after poison_text, which does not
 *                       change any more: who loads 1 may read the text.
 *   log_bytes           added to, and exchanged by the freeze, under commit_mutex; a checkpoint
 *                       that fails adds back. Compared with limits: a moment late does no harm.
 *   next_file           fetch_add sc: numbers differ, no more is asked of it.
 *   checkpoint_failed   stored sc under maintenance_mutex; a hint for writers that wait.
 *   children            fetch_add, fetch_sub and fetch_or sc. Count and DATABASE_RELEASED are
 *                       one word, so exactly one thread makes it "released and none left", and
 *                       closes.
 *   released            stored sc before that bit is set; refuses calls. Who may still call has
 *                       a child.
 *   open_cursors, open_filters  counts, for a sentence.
 *   scratch[]           exchanged and compared-and-exchanged sc: who takes one out has it
 *                       alone, and sees what the one before wrote.
 *   hot_paused          a count, sc; a copy that was begun before may be published after, and
 *                       stays.
 *   stopping            stored sc before threads are joined; long loops load it now and then.
 *   merge_done, _rows   stored by who merges, loaded for telling progress; a pair may be mixed.
 *   half_refreshed      stored sc by the one thread that refreshes a read-only handle.
 *   txn_needs           compared and exchanged relaxed: a bound over all transactions, publishes
 *                       nothing.
 *   space_pinned        stored sc by who looks at space, under maintenance_mutex, before it asks
 *                       which transactions are open; loaded by who has ended one: either sees the
 *                       other, and an old value asks for a look too many.
 *   dropped_bytes, _step  added to by who drops, without a lock; reset and set under
 *                       maintenance_mutex by who looks. A drop that is lost beside a look was seen
 *                       by it, or is looked for with the next ones.
 *   retained_count      stored under maintenance_mutex; loaded without it by who asks whether
 *                       readers are to be asked after: a hint.
 *   commit_groups, checkpoints, merges, merges_rebuilt, backup_bytes, backup_kept_bytes  counts.
 *   collection:
 *   dropped             stored sc under commit_mutex; a call that loads 0 may end beside the
 *                       drop.
 *   calibration         stored release, complete, under maintenance_mutex; loaded acquire.
 *                       Those before it stay until the collection goes.
 *   declared            stored release, complete, under commit_mutex; loaded acquire. Those before
 *                       it stay until the collection goes.
 *   quota               stored release, complete, once, under commit_mutex; loaded acquire. What is
 *                       atomic in it stands at struct quota.
 *   next_id             stored, and loaded by all who rely on it, under commit_mutex: relaxed.
 *                       Statistics load it without.
 *   looked_us, _rows, settled_rows  hints; who wins the exchange of the first looks.
 *   searched_us         a hint, stored by some of the searches; loaded by writers and checkpoints.
 *   queued[]            stored sc under the work mutex before what was queued is looked at;
 *                       loaded sc without it after a commit was published: a 1 that is still
 *                       there is taken off later, by one who then sees the commit.
 *   segment:
 *   hot                 stored release, complete, by the one thread that copies; loaded
 *                       acquire.
 *   model_state         stored release by who verified the model; loaded acquire. Several may find
 *                       the same.
 *   walks, not_stale_limit, dead_told  hints: a count that is lost puts a copy or a look off.
 *   shared_file.leave   stored sc under maintenance_mutex; loaded by the policy of merges, without:
 *                       whoever sets it then asks for a merge.
 *
 * Plain fields are guarded as they say. Two are read without their mutex by the leader, as
 * nobody else writes them: `wal` (replaced under commit_mutex) and `durable_commit` (raised
 * under sync_mutex). */
#ifndef OMENDB_DATABASE_H
#define OMENDB_DATABASE_H

#include <string.h>

#include "internal.h"
#include "calibration.h"
#include "codes.h"
#include "column_filter.h"
#include "error.h"
#include "graph_bulk.h"
#include "hash.h"
#include "idmodel.h"
#include "manifest.h"
#include "matches.h"
#include "memory.h"
#include "memtable.h"
#include "overlay.h"
#include "platform.h"
#include "scalar.h"
#include "segment.h"
#include "sort.h"
#include "storage.h"
#include "tombstones.h"
#include "wal.h"

#define DATABASE_PIN_SLOTS      64
#define DATABASE_SCRATCH_SLOTS  32
#define DATABASE_RETAINED       64
#define DATABASE_UNPUBLISHED    16
#define DATABASE_IDENTITY_BYTES 128
#define DATABASE_RELEASED       (UINT32_C(1) << 31) /* of `children`: the last one closes */

/* What may wait to be done for a collection: rows to link, segments to merge, segments to copy into
 * memory. */
enum work_queue_kind { WORK_INDEX, WORK_MERGE, WORK_HEAT, WORK_QUEUES };

/* Magic numbers of handles, to tell a wrong pointer from a right one where that is possible. */
/* Every handle begins with a uint32_t of its own value. One of another kind may be aligned less
 * than the struct that it is taken for. */
static inline int handle_is(const void *handle, uint32_t magic)
{
    uint32_t found;
    memcpy(&found, handle, sizeof found);
    return found == magic;
}

#define DATABASE_MAGIC   UINT32_C(0x4f6d4442)
#define COLLECTION_MAGIC UINT32_C(0x4f6d436f)
#define TXN_MAGIC        UINT32_C(0x4f6d5478)
#define ROWS_MAGIC       UINT32_C(0x4f6d526f)
#define FILTER_MAGIC     UINT32_C(0x4f6d4669)
#define PAGES_MAGIC      UINT32_C(0x4f6d5067)
#define FACETS_MAGIC     UINT32_C(0x4f6d4663)

/* An open segment or overlay file, shared by the segments in it. */
struct shared_file {
    _Atomic uint32_t references;
    omendb *db;
    struct segment_file *file;
    struct manifest_file entry;
    struct shared_file *next, *previous; /* db->open_files; txn_mutex */
    _Atomic uint32_t leave;              /* 1: what lives in it is to move to another file */
    /* What the last look of space.c found in use; maintenance_mutex */
    uint64_t look, used_bytes;
    uint32_t used_parts, used_parts_of_target;
};

/* Begin commits of rows that a transaction older than the sealing may not see; immutable, shared by
 * the handles of a segment. */
struct begin_array {
    struct memory *memory;
    _Atomic uint32_t references;
    uint32_t rows;
    uint64_t newest;
    uint64_t begin[];
};

struct segment_hot; /* hot.c */

/* Whether the model of a segment's ids was looked at, and serves. */
enum segment_model_state { SEGMENT_MODEL_UNREAD, SEGMENT_MODEL_USED, SEGMENT_MODEL_NONE };

struct segment {
    _Atomic uint32_t references;
    struct memory *memory;
    struct shared_file *file;
    uint32_t part;
    struct part_info info;
    uint32_t links_per_row;
    uint8_t *chunks[6];     /* vectors, links, levels, upper index, upper links, codes */
    struct graph_view full; /* over the vectors; count = rows */
    struct graph_view
        graph; /* to walk: over the codes where there are some; count = indexed rows */
    struct code_format codes;          /* step 0: none */
    _Atomic(struct segment_hot *) hot; /* a copy of what a walk reads, or NULL; set once */
    _Atomic uint32_t walks;            /* counted up to twice SEGMENT_WALKS_TO_HEAT */
    struct section_range document_ends, documents, key_seed, key_hashes, key_rows, key_filter,
        columns;
    struct section_range ids, sorted_ids, sorted_rows, filter, model_range;
    struct section_range ascending; /* ids, or sorted_ids */
    struct idmodel model;           /* of the ascending ids */
    _Atomic uint32_t model_state;   /* segment_model_state */
    struct tombstones *tombstones;
    struct begin_array *begins;      /* NULL: visible to everybody */
    struct calibration *calibration; /* NULL: not calibrated */
    /* What may be dropped depends on a limit that only grows: up to this one a look at the
     * tombstones found too little. */
    _Atomic uint64_t not_stale_limit;
    _Atomic uint32_t dead_told; /* ended rows when space.c was last asked to look */
    uint32_t
        codes_starved; /* merges in a row, the last of which made it, without memory for codes */
    int curve_tried;   /* its graph was built anew for a curve; if there is none, in vain */
    /* Where the manifest finds tombstones and documents; guarded by maintenance_mutex. */
    uint64_t overlay_file;
    uint32_t overlay_part;
    uint64_t overlay_commit;   /* ends and updates up to this one are in the overlay */
    uint64_t documents_commit; /* rows were written with the documents of this one; 0: not known */
    uint32_t mark;             /* its place among those whose tombstones a checkpoint writes anew */
};

struct version {
    _Atomic uint32_t references;
    struct memory *memory;
    size_t bytes;            /* allocated */
    uint32_t memtable_count; /* oldest first */
    uint32_t segment_count;
    struct memtable **memtables;
    struct segment **segments;
    struct overlay **memtable_overlays; /* of each; NULL: none of its rows was updated */
    struct overlay **segment_overlays;
};

/* Where the rows of a collection are that nobody uses; rest.c. Immutable. */
struct rest_segment {
    struct shared_file *file;      /* referenced */
    struct shared_file *documents; /* likewise: where its overlay has some; NULL: it has none */
    uint64_t overlay_file, overlay_commit; /* as of a segment, as are those below but `dead` */
    uint64_t newest_end, not_stale_limit;
    uint32_t part, overlay_part;
    uint32_t dead; /* ended rows */
    uint32_t codes_starved;
    int curve_tried;
};
struct rest {
    uint32_t segment_count;
    uint32_t dead;                  /* of all; their rows follow the segments, uint32_t */
    struct rest_segment segments[]; /* oldest first */
};

struct collection {
    _Atomic uint32_t references; /* the catalog's, handles', queues' */
    struct omendb *db;
    uint64_t id;
    omendb_schema schema; /* complete */
    struct scalar_format format;
    const struct kernel *kernel;
    size_t vector_bytes;
    float distance_factor;
    _Atomic uint32_t dropped;
    _Atomic(struct version *)
        version; /* replaced under commit_mutex; the old one is released after a grace period */
    struct rest *rest; /* what the version lacks while nobody uses the collection, or NULL;
                          commit_mutex */
    /* Of omendb_calibrate, or NULL; maintenance_mutex to replace. Those before it stay until the
     * collection goes, as a search may be reading one. */
    _Atomic(struct calibration *) calibration;
    struct memtable *active; /* the last of the version's memtables, or NULL; commit_mutex */
    /* Rows that the commit which is being planned adds, with keys and bytes of documents;
     * commit_mutex */
    uint32_t reserving, reserving_keys;
    size_t reserving_documents;
    _Atomic uint64_t next_id; /* commit_mutex */
    /* Visible records when all that was appended is, and the bytes of their documents. quota.c;
     * commit_mutex. */
    uint64_t used_records, used_documents;
    _Atomic(struct declared *) declared; /* NULL: nothing is declared */
    struct declared *declarations;       /* all since it was opened; commit_mutex. fields.c */
    _Atomic(struct quota *) quota; /* NULL: it never had limits since it was opened; else stays */
    /* Whether it is only searched (work_notice_reading): when that was last looked at, the rows
     * that it held then, and the rows with which it was found so; 0: never. */
    _Atomic uint64_t looked_us, looked_rows, settled_rows;
    _Atomic uint64_t searched_us; /* when a search told of itself last; 0: never */
    /* Queues of work.c, linked through the collections; work mutex. */
    _Atomic uint32_t queued[WORK_QUEUES];
    struct collection *queue_next[WORK_QUEUES];
    char name[]; /* with its NUL */
};

/* What a collection may hold and how often it may be used. Limits and `write_due`: commit_mutex.
 *   query_rate  stored under commit_mutex, loaded by searches: an old one serves a moment longer.
 *   query_due   compared and exchanged by searches, stored when limits are set: each exchange is
 *               one decision, and nothing else follows from it.
 *   counts      for statistics.
 * All of them relaxed. */
struct quota {
    omendb_limits limits;
    uint64_t write_due; /* when the bucket is full again, in ticks of quota.c */
    _Atomic uint64_t query_rate, query_due;
    _Atomic uint64_t queries, writes, queries_refused, writes_refused;
};

/* The collections; commit_mutex. */
struct catalog {
    struct collection **items; /* ascending by name */
    struct collection **by_id; /* the same, ascending by id; in one allocation with `items` */
    size_t count, capacity;
};

/* Transactions between the two phases of their commits, and outcomes; commit_mutex. prepared.c. */
struct prepared_set {
    struct prepared **items; /* by name */
    size_t count, capacity;
    struct prepared_lock *locks; /* open addressing */
    size_t lock_count, lock_slots;
    uint64_t seed;      /* of places in it */
    uint64_t last_step; /* newest commit that prepared, settled or forgot one; 0: before opening */
};

struct pin_slot {
    _Alignas(OMENDB_CACHE_LINE) _Atomic uint32_t busy;
};

struct work_state; /* work.c */
struct change;     /* commit.c */
struct declared;   /* fields.c */
struct prepared;   /* prepared.c, as the next */
struct prepared_lock;

struct omendb {
    uint32_t magic;
    uint64_t process;
    struct memory memory;       /* every allocation but this struct itself */
    struct hash_seed hash_seed; /* random */
    omendb_allocator allocator;
    omendb_vfs memory_vfs;
    uint32_t in_memory;
    uint32_t read_only;
    uint32_t sync;
    uint64_t wal_limit, tail_limit;
    uint64_t stall_timeout_us;
    void (*log)(void *context, int code, const char *message);
    void *log_context;
    struct storage storage;
    struct storage_file lock_file, manifest_lock; /* the latter: shared, of a read-only opener */
    struct storage_file cursor_lock; /* such a lock of the manifest before, which holds the files of
                                        all before it, too: cursors may read them */

    struct platform_mutex maintenance_mutex, commit_mutex, sync_mutex, txn_mutex, edit_mutex;
    struct platform_condition sync_condition, edit_condition;

    _Atomic uint32_t edit_losers; /* edit_mutex: calls of api_documents.c that try again */

    /* commit_mutex */
    struct catalog catalog;
    struct version
        *resting; /* the empty version of all collections that rest; NULL: none did yet */
    struct prepared_set prepared;
    struct wal *wal;        /* NULL: nothing was written yet, in memory, or read-only */
    uint32_t log_published; /* 1: the manifest, or the chain that it begins, leads to `wal` */
    uint64_t copied_commit, copied_end; /* the log begins after that commit; it ends there while
                                           only copies of prepared transactions are in it */
    uint64_t appended_commit;
    uint64_t next_collection;
    _Atomic uint64_t
        log_bytes; /* in the current log and those before it that a checkpoint has not replaced */

    /* sync_mutex */
    uint32_t syncing;
    uint64_t durable_commit;
    _Atomic uint32_t poisoned;
    char poison_text[256];

    _Atomic uint64_t visible_commit;
    _Atomic uint64_t checkpoint_commit; /* S of the published manifest */

    /* maintenance_mutex */
    struct manifest published;
    uint64_t prepared_end;    /* of the log that the manifest names: where the copies of prepared
                                 transactions at its beginning end; 0: there are none */
    size_t prepared_unlogged; /* transactions that were prepared or remembered at its commit and
                                 that no log has, as the database is in memory */
    uint64_t database_id;     /* that manifests are published with; set by recovery */
    _Atomic uint64_t next_file;
    uint32_t retained_overflow; /* 1: one had no place: nothing is collected until it has */
    uint64_t retained[DATABASE_RETAINED]; /* older manifests that readers of other processes may
                                             use; 0: free place */
    uint64_t unpublished[DATABASE_UNPUBLISHED]; /* files that are written, or in use, but not in the
                                                   manifest yet; 0: free place */
    uint8_t entrusted[DATABASE_UNPUBLISHED];    /* those that versions hold: the next manifest names
                                                   them, or nobody needs them any more */
    _Atomic uint32_t checkpoint_failed;         /* code of the last one, 0: fine */
    _Atomic uint32_t retained_count;            /* places of `retained` in use */
    uint64_t overwrite_below; /* numbers of files that a purge could not yet overwrite are below; 0:
                                 there are none */
    uint32_t purging;         /* 1: files that nobody needs are left for purge.c to overwrite */
    uint64_t space_looks;     /* of space.c */
    uint32_t space_swept;     /* small files that the last look gathered */

    /* Bytes that the commits of open and prepared transactions will need; a bound, publishes
     * nothing: relaxed */
    _Atomic uint64_t txn_needs;

    /* txn_mutex */
    struct omendb_txn *transactions;
    uint64_t open_transactions;
    struct shared_file *open_files; /* whose bytes this process may be reading */

    _Atomic uint64_t dropped_bytes; /* of collections dropped since the last look of space.c, */
    _Atomic uint64_t dropped_step;  /* which is due when they are so many */
    _Atomic uint64_t space_pinned;  /* the newest commit when a look found rows or documents
                                       that only transactions keep; 0: there were none */

    _Atomic uint32_t children;     /* handles of collections, transactions, cursors, filters; and
                                      DATABASE_RELEASED */
    _Atomic uint32_t open_cursors; /* of the children; pages and facets, too */
    _Atomic uint32_t open_filters; /* of the children */
    _Atomic uint32_t released;
    struct pin_slot pins[DATABASE_PIN_SLOTS];
    _Atomic(struct scratch *) scratch[DATABASE_SCRATCH_SLOTS];
    struct work_state *work;
    _Atomic uint32_t hot_paused;             /* threads that want no copies made (hot.c) */
    _Atomic uint32_t stopping;               /* long work ends early */
    _Atomic uint64_t merge_done, merge_rows; /* of the graph that a merge is building */

    /* A refresh left collections of two manifests side by side: reading is refused until one
     * succeeds. Read-only openers. */
    _Atomic uint32_t half_refreshed;
    /* read-only openers: where replay goes on */
    uint64_t replay_wal, replay_offset;

    _Atomic uint64_t batches; /* of queries, so far: their numbers */
    _Atomic uint64_t commit_groups, checkpoints, merges, merges_rebuilt;
    _Atomic uint64_t backup_bytes, backup_kept_bytes;
    struct omendb *next_open;               /* of the process-wide list; guarded by its mutex */
    char identity[DATABASE_IDENTITY_BYTES]; /* of the directory, while it is open for writing; "":
                                               none */
};

struct omendb_collection {
    uint32_t magic;
    omendb *db;
    struct collection *collection;
};

/* ---- version.c: collections, versions, segments and their lives */
OMENDB_INTERNAL int collection_create(omendb *db, uint64_t id, const char *name,
                                      const omendb_schema *schema, struct collection **collection);
OMENDB_INTERNAL struct collection *collection_reference(struct collection *collection);
OMENDB_INTERNAL void collection_release(struct collection *collection);
OMENDB_INTERNAL void collection_graph_config(const struct collection *collection,
                                             struct graph_config *config);

/* Fills defaults and checks ranges; OMENDB_INVALID names the field. */
OMENDB_INTERNAL int schema_complete(const omendb_schema *given, omendb_schema *complete);
/* Fields of `given` that are not 0 must equal; OMENDB_MISMATCH names the field. */
OMENDB_INTERNAL int schema_compare(const omendb_schema *stored, const omendb_schema *given,
                                   const char *name);

/* Index of the name in the catalog, or where it would go with *found = 0. commit_mutex. */
OMENDB_INTERNAL size_t catalog_find(const struct catalog *catalog, const char *name, int *found);
/* Whether one of the name has a smaller id. */
OMENDB_INTERNAL int catalog_has_older(const struct catalog *catalog, const char *name,
                                      uint64_t below);
OMENDB_INTERNAL struct collection *catalog_by_id(const struct catalog *catalog, uint64_t id);
OMENDB_INTERNAL int catalog_reserve(omendb *db, struct catalog *catalog, size_t more);
OMENDB_INTERNAL void
catalog_insert(struct catalog *catalog,
               struct collection *collection); /* takes the reference; reserved before */
OMENDB_INTERNAL void
catalog_remove(struct catalog *catalog,
               struct collection *collection); /* gives the reference back to the caller */
OMENDB_INTERNAL void catalog_destroy(omendb *db, struct catalog *catalog);

/* A reference to the current version, without a lock. */
OMENDB_INTERNAL struct version *version_acquire(struct collection *collection);
OMENDB_INTERNAL void version_release(struct version *version);
/* A new version with room; its items are not yet referenced. NULL: no memory. */
OMENDB_INTERNAL struct version *version_create(struct memory *memory, uint32_t memtables,
                                               uint32_t segments);
/* References to them, as the memtable or segment `at`. */
OMENDB_INTERNAL void version_put_memtable(struct version *version, uint32_t at,
                                          struct memtable *memtable, struct overlay *overlay);
OMENDB_INTERNAL void version_put_segment(struct version *version, uint32_t at,
                                         struct segment *segment, struct overlay *overlay);
/* References to all that is in `from`, for which `version` has room. */
OMENDB_INTERNAL void version_put_all(struct version *version, const struct version *from);
/* Makes it current and releases the old one after the grace period. commit_mutex. */
OMENDB_INTERNAL void version_install(struct collection *collection, struct version *version);
/* Waits until no reader is between loading a pointer and referencing what it points at. */
OMENDB_INTERNAL void version_wait_for_readers(omendb *db);
/* Consistent pair of a version and the commit to read at. */
OMENDB_INTERNAL struct version *version_acquire_newest(struct collection *collection,
                                                       uint64_t *commit);

OMENDB_INTERNAL int shared_file_open(omendb *db, const struct manifest_file *entry,
                                     struct shared_file **file);
OMENDB_INTERNAL struct shared_file *shared_file_reference(struct shared_file *file);
OMENDB_INTERNAL void shared_file_release(struct shared_file *file);
/* Whether this process may be reading the segment or overlay. */
OMENDB_INTERNAL int shared_file_is_open(omendb *db, uint64_t number);

/* tombstones, begins: references taken over on success; tombstones NULL: a new empty object. */
OMENDB_INTERNAL int segment_open(omendb *db, const struct collection *collection,
                                 struct shared_file *file, uint32_t part,
                                 struct tombstones *tombstones, struct begin_array *begins,
                                 struct segment **segment);
OMENDB_INTERNAL struct segment *segment_reference(struct segment *segment);
OMENDB_INTERNAL void segment_release(struct segment *segment);
/* Another handle of the same segment, with the same tombstones but without a copy in memory; NULL:
 * no memory. maintenance_mutex. */
OMENDB_INTERNAL struct segment *segment_reopen(omendb *db, const struct collection *collection,
                                               const struct segment *segment);
/* Whether both are handles of one segment. */
OMENDB_INTERNAL int segment_is_same(const struct segment *a, const struct segment *b);
OMENDB_INTERNAL int segment_id(const struct segment *segment, uint32_t row, uint64_t *id);
OMENDB_INTERNAL int segment_vector(const struct segment *segment, uint32_t row,
                                   const uint8_t **vector);
/* The document that the row was written with, checked, borrowed from the segment; NULL: none. */
OMENDB_INTERNAL int segment_document(const struct segment *segment, uint32_t row,
                                     const uint8_t **document);
/* A key that is looked for. Its hash is that of the source which was asked last: each has a seed.
 */
struct key_probe {
    const uint8_t *key;
    uint32_t size;
    int hashed; /* 0: not yet */
    struct hash_seed seed;
    uint64_t hash;
};
/* Rows with this key, one after the other: *cursor starts at 0, and until the end, where *row is
 * GRAPH_NO_ROW, the probe asks no other segment. */
OMENDB_INTERNAL int segment_find_key(const struct segment *segment, struct key_probe *probe,
                                     uint64_t *cursor, uint32_t *row);
/* Rows with this id, one after the other: *cursor starts at 0; *row = GRAPH_NO_ROW at the end. */
OMENDB_INTERNAL int segment_find(struct segment *segment, uint64_t id, uint64_t *cursor,
                                 uint32_t *row);
/* The place among the ascending ids of the first that is not below `id`; the number of rows where
 * all are below it. */
OMENDB_INTERNAL int segment_first_place(struct segment *segment, uint64_t id, uint64_t *place);
/* The id at a place, and the row that has it. */
OMENDB_INTERNAL int segment_at_place(const struct segment *segment, uint64_t place, uint64_t *id,
                                     uint32_t *row);
OMENDB_INTERNAL int segment_row_visible(const struct segment *segment, uint32_t row,
                                        uint64_t commit);

/* Where a row is. */
struct location {
    struct memtable *memtable; /* or */
    struct segment *segment;
    struct overlay *overlay; /* of either, or NULL */
    uint32_t row;
};
/* The live row of `id` in the newest state (commit_mutex), or both pointers NULL. *newest_change:
 * largest commit known to have added or ended a row of the id (0: none known). */
OMENDB_INTERNAL int version_locate_live(const struct version *version, uint64_t id,
                                        struct location *location, uint64_t *newest_change);
/* The row of `id` that is visible at `commit`, or both pointers NULL. */
OMENDB_INTERNAL int version_locate(const struct version *version, uint64_t id, uint64_t commit,
                                   struct location *location);
/* As the two above, by key. *newest_change of a key: largest commit known to have added or ended a
 * row with it. */
OMENDB_INTERNAL int version_locate_live_key(const struct version *version, const uint8_t *key,
                                            uint32_t size, struct location *location,
                                            uint64_t *newest_change);
OMENDB_INTERNAL int version_locate_key(const struct version *version, const uint8_t *key,
                                       uint32_t size, uint64_t commit, struct location *location);
OMENDB_INTERNAL int location_id(const struct location *location, uint64_t *id);
/* The same for up to VERSION_BATCH ids, whose memory is waited for together. */
#define VERSION_BATCH 32
OMENDB_INTERNAL int version_locate_batch(const struct version *version, const uint64_t *ids,
                                         uint32_t count, uint64_t commit,
                                         struct location *locations);
OMENDB_INTERNAL int location_vector(const struct location *location, const uint8_t **vector);
/* As it is at `commit`, at which the row is visible; borrowed from the version; NULL: none. */
OMENDB_INTERNAL int location_document(const struct location *location, uint64_t commit,
                                      const uint8_t **document);
/* The same of a row of a memtable, or of a segment, with its overlay (NULL: none). */
OMENDB_INTERNAL int memtable_document_at(const struct memtable *memtable,
                                         const struct overlay *overlay, uint32_t row,
                                         uint64_t commit, const uint8_t **document);
OMENDB_INTERNAL int segment_document_at(const struct segment *segment,
                                        const struct overlay *overlay, uint32_t row,
                                        uint64_t commit, const uint8_t **document);
/* Bytes of the document at `commit`; 0: none, or its place is damaged, so that such a record can be
 * deleted. */
OMENDB_INTERNAL int location_document_bytes(const struct location *location, uint64_t commit,
                                            uint32_t *bytes);
OMENDB_INTERNAL int version_count(const struct version *version, uint64_t commit, uint64_t *count);
/* Bytes of vectors not in a graph: of the newest memtable, of those that are still linked, and of
 * everything. */
OMENDB_INTERNAL uint64_t version_growing_tail_bytes(const struct version *version,
                                                    size_t vector_bytes);
OMENDB_INTERNAL uint64_t version_linking_tail_bytes(const struct version *version,
                                                    size_t vector_bytes);
OMENDB_INTERNAL uint64_t version_unindexed_bytes(const struct version *version,
                                                 size_t vector_bytes);

/* Working memory of one search, merge or indexing step at a time; pooled. */
struct search_hit {
    float distance;
    uint64_t id;
};
struct scratch {
    struct memory *memory;
    struct graph_scratch *graph;
    struct graph_hit *hits; /* of one source */
    size_t hit_capacity;
    struct search_hit *found, *best, *merged; /* of one source, of all before it, of both */
    size_t found_capacity, best_capacity;     /* the latter also of `merged` */
    uint8_t *vector;                          /* the query in the stored type */
    size_t vector_capacity;
    uint8_t *code; /* the query as a code */
    size_t code_capacity;
    struct scratch_answers {
        struct matches matches;
        struct column_filter plan;
        struct graph_gathered gathered; /* what was chosen, while the answers are kept */
        int gathered_codes;             /* 1: codes; 0: vectors */
    } answers, kept;   /* of one source; of the largest one, for the queries of a batch */
    uint32_t searches; /* for which it was used; wraps */
};
OMENDB_INTERNAL struct scratch *scratch_take(omendb *db);               /* NULL: no memory */
OMENDB_INTERNAL void scratch_give(omendb *db, struct scratch *scratch); /* NULL is OK */
OMENDB_INTERNAL void scratch_destroy(struct scratch *scratch);          /* NULL is OK */
OMENDB_INTERNAL void scratch_drop_idle(omendb *db); /* frees the pooled ones; any thread */
OMENDB_INTERNAL int scratch_reserve(struct scratch *scratch, size_t hits, size_t found, size_t best,
                                    size_t vector_bytes);
OMENDB_INTERNAL int scratch_reserve_code(struct scratch *scratch, size_t bytes);
OMENDB_INTERNAL void database_log(omendb *db, int code, const char *message);
OMENDB_INTERNAL struct begin_array *begin_array_create(struct memory *memory, uint32_t rows);
OMENDB_INTERNAL void begin_array_release(struct begin_array *begins); /* NULL is OK */

/* ---- hot.c */
#define SEGMENT_WALKS_TO_HEAT 100
/* After each so many walks of a segment: asks for a copy, or for a look after the one there is, and
 * tells that the collection is searched. */
OMENDB_INTERNAL void hot_notice(struct collection *collection, struct segment *segment);
/* Does what was asked for; one thread at a time. OMENDB_OK also without memory for a copy: then it
 * is asked for again after as many walks. */
OMENDB_INTERNAL int hot_tend(omendb *db, struct segment *segment);
/* Gives the memory of all copies back. Searches under way keep theirs until they end, for which it
 * waits a little. 1: some memory came back. The caller holds none of the locks, and no version. */
OMENDB_INTERNAL int hot_give_back(omendb *db);
/* The same, and no copies are made until hot_resume. 0: there are none, and hot_resume is not due.
 */
OMENDB_INTERNAL int hot_pause(omendb *db);
OMENDB_INTERNAL void hot_resume(omendb *db);
/* Whether hot_pause may find something. */
OMENDB_INTERNAL int hot_may_pause(const omendb *db);
OMENDB_INTERNAL void hot_destroy(struct memory *memory, struct segment_hot *hot); /* NULL is OK */
/* The view to walk: of the copy, or of the file. As long as the segment. */
OMENDB_INTERNAL const struct graph_view *hot_view(const struct segment *segment);
OMENDB_INTERNAL uint64_t hot_size(const struct segment *segment);

/* ---- rest.c */
/* Gives the reference back, as collection_release; the collection may rest if that was the last but
 * the catalog's. No locks. */
OMENDB_INTERNAL void rest_release(struct collection *collection);
/* Lets all rest that may. No locks. */
OMENDB_INTERNAL void rest_idle(omendb *db);
/* After it the version has all there is, as long as the caller keeps a reference. OMENDB_NOMEM: it
 * rests on. The first one: no locks; the second: commit_mutex. */
OMENDB_INTERNAL int rest_end(struct collection *collection);
OMENDB_INTERNAL int rest_end_locked(struct collection *collection);
/* Forgets where its rows were: something else takes their place. commit_mutex, or nobody else knows
 * the collection. */
OMENDB_INTERNAL void rest_discard(struct collection *collection);
/* Rows that are stored, ended ones included, 0 where it does not rest; whether some live in a file
 * that is to be left. commit_mutex. */
OMENDB_INTERNAL uint64_t rest_rows(const struct collection *collection);
OMENDB_INTERNAL int rest_must_leave(const struct collection *collection);

/* ---- quota.c. What has no other lock named: commit_mutex. */
/* Memory for limits, so that quota_set cannot fail. */
OMENDB_INTERNAL int quota_reserve(struct collection *collection);
/* limits: reserved for, unless all are 0. The buckets are full afterwards. */
OMENDB_INTERNAL void quota_set(struct collection *collection, const omendb_limits *limits);
OMENDB_INTERNAL void quota_get(const struct collection *collection, omendb_limits *limits);
OMENDB_INTERNAL void quota_destroy(struct collection *collection);
/* Fills what is known of usage. No locks. */
OMENDB_INTERNAL void quota_tell(struct collection *collection, omendb_collection_stats *stats);
/* Bytes that records count: a vector of the stored type and an id each, and their documents. */
OMENDB_INTERNAL uint64_t quota_record_bytes(const struct collection *collection, uint64_t records,
                                            uint64_t documents);
/* Records and bytes of documents that come and go: whoever changes what is visible calls it, with
 * the bytes before and after where a record stays and its document changes. */
OMENDB_INTERNAL void quota_account(struct collection *collection, uint64_t new_records,
                                   uint64_t new_documents, uint64_t old_records,
                                   uint64_t old_documents);
/* The same of a validated change. */
OMENDB_INTERNAL void quota_account_change(const struct change *change);
/* OMENDB_QUOTA where validated changes, those of a collection side by side, would go over a limit;
 * then nothing is counted but the refusal. *by_rate: set to 1 where it is one of writes a second.
 */
OMENDB_INTERNAL int quota_check_changes(const struct change *changes, size_t count, int *by_rate);
/* OMENDB_QUOTA where so many writes, which are at most those of a commit to come, would go over the
 * collection's rate now; the refusal is counted. Without commit_mutex. */
OMENDB_INTERNAL int quota_foresee_rate(struct collection *collection, uint64_t writes);
/* Counts the writes of changes that are made, or prepared. */
OMENDB_INTERNAL void quota_spend_changes(const struct change *changes, size_t count);
/* Counts queries before they are done; OMENDB_QUOTA: not one of them may be. No locks. */
OMENDB_INTERNAL int quota_take_queries(struct collection *collection, uint64_t count);
/* What changes of one collection bring and end. */
struct quota_growth {
    uint64_t collection; /* 0: nothing */
    uint64_t new_records, new_bytes, old_records, old_bytes;
};
/* Adds a change that was not validated, of a prepared transaction. Looks up where its records are.
 */
OMENDB_INTERNAL int quota_measure(const struct change *change, struct quota_growth *growth);

/* ---- fields.c */
/* bytes: a declaration (declaration.h). */
OMENDB_INTERNAL int fields_make(omendb *db, const uint8_t *bytes, size_t size,
                                struct declared **made);
OMENDB_INTERNAL void fields_discard(omendb *db, struct declared *made); /* NULL is OK */
/* Takes it over; NULL: nothing is declared any more. commit_mutex. */
OMENDB_INTERNAL void fields_set(struct collection *collection, struct declared *made);
/* NULL: nothing is declared. As long as the collection. */
OMENDB_INTERNAL const uint8_t *fields_get(const struct collection *collection, size_t *size);
OMENDB_INTERNAL void fields_destroy(struct collection *collection);
/* OMENDB_INVALID: a record that is added or put is not as is declared now. Any locks. */
OMENDB_INTERNAL int fields_check_change(struct change *change);

/* ---- commit.c */
enum change_kind {
    CHANGE_ADD = 1,
    CHANGE_PUT = 2,
    CHANGE_DELETE = 3,
    CHANGE_CREATE = 4,
    CHANGE_DROP = 5,
    CHANGE_PREPARE = 6, /* only in the log, as the next two */
    CHANGE_SETTLE = 7,
    CHANGE_REMEMBER = 8,
    CHANGE_ADD_DOCUMENTS = 9, /* only in the log, as the next: an ADD with documents */
    CHANGE_PUT_DOCUMENTS = 10,
    CHANGE_LIMITS = 11,
    CHANGE_DECLARE = 12,
    CHANGE_UPDATE = 13 /* other documents for records, whose vectors and keys stay */
};

/* One operation over many records of one collection. */
struct change {
    uint32_t kind;
    uint32_t count;
    struct collection *collection;  /* CREATE: the new one; a reference of the caller's */
    uint64_t *ids;                  /* caller's; automatic ones are filled in when `automatic` */
    const uint8_t *vectors;         /* ADD, PUT: count * vector_bytes, stored type */
    const uint32_t *document_sizes; /* ADD, PUT, UPDATE: NULL: no record has a document; else of
                                       each, 0: it has none. */
    const uint8_t *documents;       /* one after the other */
    uint64_t document_bytes;        /* of all of them */
    uint32_t keys;                  /* how many of the documents give one: UPDATE: 0 */
    int automatic;
    int skip_missing;  /* DELETE, UPDATE: absent ids are left out of the commit instead of
                           OMENDB_NOTFOUND */
    uint32_t affected; /* out: DELETE: how many existed */
    uint64_t ended_records, ended_documents; /* out: rows that end, and bytes of documents */
    const uint8_t *setting;                  /* LIMITS, DECLARE: as it is logged, `count` bytes */
    struct declared **declared;  /* DECLARE: the same; NULL when the collection has taken it over */
    const struct declared *kept; /* that the documents were compared with, or NULL */
};

/* Memtables of a collection: one, others where the one before began without codes and rows enough
 * for them have come, or where its codes no longer fit the rows; and one more after each checkpoint
 * that failed. The first of those that come after this many has to do. */
#define COMMIT_MAX_MEMTABLES 8

/* What is committed together. */
struct commit_order {
    struct change *changes;
    size_t count;
    uint64_t snapshot;         /* UINT64_MAX, or OMENDB_CONFLICT where an id changed after it */
    struct prepared *prepared; /* NULL, or the changes are its own, and */
    uint32_t state; /* what becomes of it. OMENDB_PREPARED_WAITING: they are locked, not applied */
    int remembers;  /* 1: it is not known here, and this is the outcome that it had elsewhere */
};
/* Validates, logs, applies and, as the sync mode says, waits until the commit is durable and
 * visible. *applied: 1 from the applying on, also when it then could not be made durable. */
OMENDB_INTERNAL int commit_run(omendb *db, const struct commit_order *order, int *applied);
/* The same, of changes alone. */
OMENDB_INTERNAL int commit_changes(omendb *db, struct change *changes, size_t count,
                                   uint64_t snapshot);
/* Changes as they stand in the log; a multiple of 8. */
OMENDB_INTERNAL size_t commit_encoded_bytes(const struct change *changes, size_t count);
OMENDB_INTERNAL void commit_encode(const struct change *changes, size_t count, uint8_t *out);
/* The first change at `payload`, into which it then points; only ADD, PUT, DELETE and UPDATE. *used
 * receives its bytes. OMENDB_CORRUPT names the commit. commit_mutex. */
OMENDB_INTERNAL int commit_decode(omendb *db, uint64_t commit, const uint8_t *payload, size_t size,
                                  struct change *change, size_t *used);
/* The document of record `index`, NULL: none; *at begins at change->documents and goes on behind
 * it. */
OMENDB_INTERNAL const uint8_t *change_next_document(const struct change *change, uint32_t index,
                                                    const uint8_t **at);
/* OMENDB_EXISTS or, for a put, OMENDB_CONFLICT: record `holder` has the key. Of several that are
 * added the row is named. */
OMENDB_INTERNAL int commit_refuse_taken_key(const struct change *change, uint32_t index,
                                            const uint8_t *key, uint32_t size, uint64_t holder);
/* OMENDB_EXISTS, OMENDB_FULL with their sentences; likewise. */
OMENDB_INTERNAL int commit_refuse_taken_id(const struct change *change, uint32_t index);
OMENDB_INTERNAL int commit_refuse_automatic_ids(const struct collection *collection, uint64_t next);
/* Applies a logged commit to memory (recovery, read-only openers). */
OMENDB_INTERNAL int commit_replay(omendb *db, uint64_t commit, const uint8_t *payload, size_t size);
/* OMENDB_CORRUPT names the commit: an id of a logged change is none, or stands there twice, and two
 * rows of it would be visible. */
OMENDB_INTERNAL int commit_check_ids(omendb *db, uint64_t commit, const struct change *change);
/* The changes of a prepared transaction, as part of one. commit_mutex. */
OMENDB_INTERNAL int commit_replay_records(omendb *db, uint64_t commit, const uint8_t *payload,
                                          size_t size);
/* One change of a logged commit, as far as it can be told without knowing its collection. */
struct commit_logged {
    uint32_t kind, count;
    uint64_t collection;
    int documents; /* 1: UPDATE; or ADD or PUT, which has some */
    const uint8_t *body;
    size_t left; /* bytes from the body to the end of the payload */
};
/* 0: the payload is too short for a change. */
OMENDB_INTERNAL int commit_decode_head(const uint8_t *payload, size_t size,
                                       struct commit_logged *logged);
/* Whether it is of records: ADD, PUT, DELETE and UPDATE. */
OMENDB_INTERNAL int commit_is_of_records(uint32_t kind);
/* Bytes of the ids, vectors, documents and padding of a change of records; 0 for DROP. More than
 * are left: it makes no sense. */
OMENDB_INTERNAL size_t commit_body_bytes(const struct commit_logged *logged, size_t vector_bytes);
/* Bytes of the body of LIMITS and DECLARE; 0: it makes no sense. */
OMENDB_INTERNAL size_t commit_setting_bytes(const struct commit_logged *logged);
/* Points `change` at what such a body holds, of which commit_body_bytes are there, and checks the
 * documents. 0: they make no sense. */
OMENDB_INTERNAL int commit_decode_body(const struct commit_logged *logged, size_t vector_bytes,
                                       struct change *change);
/* The body of CREATE. OMENDB_CORRUPT, without a sentence: it makes no sense. */
OMENDB_INTERNAL int commit_decode_schema(const uint8_t *body, size_t size, size_t *used,
                                         char name[256], omendb_schema *schema);
/* Makes `commit` and all before it durable and visible, whatever the sync mode. */
OMENDB_INTERNAL int commit_wait(omendb *db, uint64_t commit);
/* The same, if the sync mode asks for it. two_phases: it is a step of a prepared transaction. */
OMENDB_INTERNAL int commit_await(omendb *db, uint64_t commit, int two_phases);
OMENDB_INTERNAL int commit_check_writable(omendb *db);
/* Leadership of syncing: begin waits for the thread that has it. */
OMENDB_INTERNAL void commit_lead(omendb *db);
OMENDB_INTERNAL void commit_unlead(omendb *db);
OMENDB_INTERNAL int commit_poison(omendb *db, int code);
/* As leader: syncs what is in the log now and publishes it. */
OMENDB_INTERNAL int commit_sync_led(omendb *db);
OMENDB_INTERNAL void commit_publish(omendb *db, uint64_t commit);

/* ---- prepared.c. But for prepared_decode and the last four calls: commit_mutex. */
/* An outcome beside those of omendb_prepared_state. */
#define PREPARED_FORGOTTEN 4

struct prepared {
    char name[OMENDB_PREPARED_NAME_MAX + 1];
    uint32_t state; /* omendb_prepared_state */
    int settling;   /* a thread is at its outcome */
    uint64_t commit;
    uint64_t needs;   /* its part of txn_needs */
    uint8_t *payload; /* its changes as logged; NULL after the outcome */
    size_t size;
    struct quota_growth *growths; /* NULL before it waits and after the outcome; of its collections
                                     one each, then empty ones */
    size_t growth_count;
};

/* A locked key has its hash in place of an id, and the collection with PREPARED_KEY. */
#define PREPARED_KEY (UINT64_C(1) << 63)
struct prepared_lock {
    uint64_t collection, id;
    const struct prepared *holder; /* NULL: a free slot */
};

/* Name and padding of a record of the log that is about one. */
#define PREPARED_HEAD_BYTES 16
#define PREPARED_HEAD_MAX   (PREPARED_HEAD_BYTES + OMENDB_PREPARED_NAME_MAX + 1)
#define PREPARED_PIECES     2

/* payload: `size` bytes to be filled. */
OMENDB_INTERNAL int prepared_create(omendb *db, const char *name, size_t size,
                                    struct prepared **prepared);
OMENDB_INTERNAL void prepared_destroy(omendb *db, struct prepared *prepared); /* NULL is OK */
/* Frees them all: the database closes, or a reader loads another manifest. */
OMENDB_INTERNAL void prepared_clear(omendb *db);
/* Whose lock is on the record, or NULL. */
OMENDB_INTERNAL const struct prepared *prepared_holder(const omendb *db, uint64_t collection,
                                                       uint64_t id);
OMENDB_INTERNAL int prepared_refuse_locked(const struct change *change, uint64_t id,
                                           const struct prepared *holder);
/* The same of a key; one of the same hash has the same lock. */
OMENDB_INTERNAL const struct prepared *prepared_key_holder(const omendb *db, uint64_t collection,
                                                           const uint8_t *key, uint32_t size);
OMENDB_INTERNAL int prepared_refuse_locked_key(const struct change *change, const uint8_t *key,
                                               uint32_t size, const struct prepared *holder);
/* OMENDB_BUSY where one that waits changes the collection. */
OMENDB_INTERNAL int prepared_check_drop(omendb *db, const struct collection *collection);
/* Memory for holding it; OMENDB_EXISTS where the name is taken. */
OMENDB_INTERNAL int prepared_reserve(omendb *db, struct prepared *prepared);
/* Takes it over, with its locks; nothing can fail. Returns how many records were not locked before.
 */
OMENDB_INTERNAL size_t prepared_hold(omendb *db, struct prepared *prepared);
/* Frees locks and changes; with PREPARED_FORGOTTEN all of it. Nothing can fail. */
OMENDB_INTERNAL void prepared_settle(omendb *db, struct prepared *prepared, uint32_t state);
/* The record of the log that says so; returns the number of pieces. */
OMENDB_INTERNAL size_t prepared_pieces(const struct prepared *prepared, uint32_t kind,
                                       uint32_t state, uint8_t head[PREPARED_HEAD_MAX],
                                       struct wal_piece pieces[PREPARED_PIECES]);
/* Appends what waits or is remembered, from commit *commit + 1 on, which is counted up; but for the
 * first `copied`, which are there. */
OMENDB_INTERNAL int prepared_copy_to_log(omendb *db, struct wal *wal, uint64_t copied,
                                         uint64_t *commit);
/* What a change of one of the three kinds says; of the payload `changes` are borrowed. */
struct prepared_logged {
    char name[OMENDB_PREPARED_NAME_MAX + 1];
    uint32_t kind, state; /* OMENDB_PREPARED_WAITING: it comes with `size` bytes of changes */
    const uint8_t *changes;
    size_t size;
};
/* NULL, or what is wrong with it, of which commit_decode_head was given the kind. *used receives
 * its bytes. Any locks. */
OMENDB_INTERNAL const char *prepared_decode(const uint8_t *payload, size_t size,
                                            struct prepared_logged *logged, size_t *used);
/* Such a change. */
OMENDB_INTERNAL int prepared_replay(omendb *db, uint64_t commit, const uint8_t *payload,
                                    size_t size, size_t *used);
/* An outcome that it had in another database; durable when what follows it is. */
OMENDB_INTERNAL int prepared_remember(omendb *db, const char *name, uint32_t state);
OMENDB_INTERNAL int prepared_prepare(omendb *db, const char *name, struct change *changes,
                                     size_t count, uint64_t snapshot);
OMENDB_INTERNAL int prepared_finish(omendb *db, const char *name, uint32_t state);
OMENDB_INTERNAL int prepared_name(omendb *db, size_t index, char *name, size_t capacity,
                                  int *state);
/* Number of those that wait for their outcome. */
OMENDB_INTERNAL uint64_t prepared_count_waiting(omendb *db);

/* ---- part.c */
/* Writes ids, their sorted index and filter of a part; fills the fields of `info` that follow from
 * them. */
OMENDB_INTERNAL int part_write_ids(struct segment_writer *writer, struct memory *memory,
                                   const uint64_t *ids, uint32_t rows, struct part_info *info);
/* The documents of a part, asked for from row 0 on in the order of rows, more than once. Documents
 * that are read stay until the part is written. */
struct part_documents {
    int (*read)(void *context, uint32_t row, const uint8_t **document);
    void *context;
};
OMENDB_INTERNAL int part_write_documents(struct segment_writer *writer, struct memory *memory,
                                         const struct hash_seed *seed,
                                         const struct part_documents *documents, uint32_t rows);
OMENDB_INTERNAL int part_write_rows(struct segment_writer *writer, enum section_type type,
                                    const struct rows_view *rows, uint32_t count);
/* What a part says of its collection, and of the graph in it. */
OMENDB_INTERNAL void part_describe(const struct collection *collection, struct part_info *info);
OMENDB_INTERNAL void part_describe_graph(const struct graph_view *view, uint32_t indexed_rows,
                                         struct part_info *info);
/* The sections of a graph, for info->indexed_rows rows. */
OMENDB_INTERNAL int part_write_links(struct segment_writer *writer, const struct graph_view *view,
                                     const struct part_info *info);
/* What info says of the codes. */
OMENDB_INTERNAL struct code_format part_code_format(const struct collection *collection,
                                                    const struct part_info *info);
/* Chooses a range from rows spread over [first, first + rows); step 0: none serves. Takes 3 to 4 ms
 * for 256 rows and 12 to 30 ms for 1,000 or more, of 96 to 1,536 dimensions (Zen 3), for which
 * commit.c, too, holds commit_mutex: for a first memtable of a collection without segments that
 * have codes, and when rows have drifted. */
OMENDB_INTERNAL int part_choose_codes(const struct collection *collection,
                                      const struct rows_view *vectors, uint32_t first,
                                      uint32_t rows, struct code_format *format);
/* Codes of all rows of `full`, of which vectors and count are read, one after the other, of
 * codes_stride bytes (memory_free_aligned); fills the fields of `info` that belong to them. *codes
 * is NULL, and step 0, where codes do not apply or do not serve, and with OMENDB_NOMEM: a graph is
 * then walked over the vectors. Else mapped vectors are released. */
OMENDB_INTERNAL int part_make_codes(const struct collection *collection,
                                    const struct graph_view *full, struct part_info *info,
                                    uint8_t **codes);
/* Writes them as they are made, in little memory; none where part_make_codes would give none. */
OMENDB_INTERNAL int part_write_codes(struct segment_writer *writer,
                                     const struct collection *collection,
                                     const struct rows_view *vectors, struct part_info *info);
/* Tells the log, with the text of the last error, that there was no memory for codes. */
OMENDB_INTERNAL void part_report_codes(const struct collection *collection);

/* ---- collect.c: all of it under maintenance_mutex */
/* The published manifest is about to be followed by another; a reader may hold this one. */
OMENDB_INTERNAL void collect_retain(omendb *db, uint64_t number);
/* Forgets, and unlinks, the older manifests that no reader holds any more. */
OMENDB_INTERNAL void collect_release_manifests(omendb *db);
/* Who needs a log, a segment or an overlay: the published manifest or this process, which may be
 * writing it; else a reader of an older manifest, whose number is then given; else nobody. */
enum collect_need { COLLECT_SUPERFLUOUS, COLLECT_HELD, COLLECT_IN_FORCE };
OMENDB_INTERNAL enum collect_need collect_file_need(const omendb *db, enum storage_kind kind,
                                                    uint64_t number, uint64_t *manifest);
/* Adds up the bytes of what only readers of older manifests need. */
OMENDB_INTERNAL int collect_measure_held(omendb *db, uint64_t *bytes);
/* Unlinks the files that neither the manifest nor a reader of another process needs. */
OMENDB_INTERNAL void collect_files(omendb *db);

/* ---- checkpoint.c */
/* Seals all memtables and tombstones into files and publishes them; the log before it is dropped.
 * force = 0: only when the log is long enough. */
OMENDB_INTERNAL int checkpoint_run(omendb *db, int force);
/* Publishes what the versions hold now, as of the last checkpoint's commit. maintenance_mutex. */
OMENDB_INTERNAL int checkpoint_republish(omendb *db);
/* Poisons after an error by which a sync failed, or it is not known whether a rename happened, or
 * whether a crash brings files back; returns `code`. */
OMENDB_INTERNAL int checkpoint_poison_if_unsure(omendb *db, int code);
/* A file is about to be written outside of maintenance_mutex, or is done with. */
OMENDB_INTERNAL int checkpoint_protect(
    omendb *db, uint64_t *number); /* gives the next number; OMENDB_BUSY when there are too many */
OMENDB_INTERNAL void checkpoint_unprotect(omendb *db, uint64_t number);
/* Versions hold it, but it could not be published: it is protected until the next manifest.
 * maintenance_mutex. */
OMENDB_INTERNAL void checkpoint_entrust(omendb *db, uint64_t number);

/* ---- recover.c */
OMENDB_INTERNAL int recover_open(omendb *db, int must_exist);
OMENDB_INTERNAL int recover_refresh(omendb *db);

/* ---- compact.c */
/* What to pick in a collection: what the policy says; all of it; a segment in a file that is to be
 * left. */
enum compact_mode { COMPACT_BY_POLICY, COMPACT_EVERYTHING, COMPACT_LEAVING };
/* Merges what is picked in these collections (small ones share a file); *merged = 0: nothing to do.
 * The caller has the right to merge (work_merge_begin). OMENDB_DONE: cancelled by `progress` or by
 * closing. */
#define COMPACT_BATCH 64
OMENDB_INTERNAL int compact_run(omendb *db, struct collection *const *collections, size_t count,
                                enum compact_mode mode,
                                int (*progress)(void *context, uint64_t done, uint64_t total),
                                void *context, int *merged);
OMENDB_INTERNAL int compact_wanted(struct collection *collection);
/* Up to this commit an ended row can be dropped now. */
OMENDB_INTERNAL uint64_t compact_drop_limit(omendb *db);
/* Whether so many rows, the largest source of a search with so many of them, would be merged
 * further if the collection were only searched; whether it was found so (work_notice_reading). */
OMENDB_INTERNAL int compact_would_settle(uint64_t rows, uint64_t largest);
OMENDB_INTERNAL int compact_has_settled(const struct collection *collection, uint64_t rows);
/* Bytes that a merge of what is picked would write: small ones are gathered into one file. */
#define COMPACT_SMALL_BYTES (UINT64_C(4) << 20)

/* ---- space.c */
/* Bytes of the files in the published manifest; each is one of these, or padding and dead parts. */
struct space {
    uint64_t files;
    uint64_t live;      /* rows that have not ended, with all that belongs to them */
    uint64_t droppable; /* ended rows that a merge drops */
    uint64_t waiting; /* that it drops after a checkpoint; and collections dropped since the last */
    uint64_t pinned;  /* ended rows that open transactions keep */
    uint64_t pinned_memory; /* such rows in memtables; not in the files */
    uint64_t pinned_rows;   /* of both */
};
struct space_list {
    struct collection **items; /* referenced */
    size_t count, capacity;
};
OMENDB_INTERNAL int space_list_collections(omendb *db, struct space_list *list);
OMENDB_INTERNAL void space_free_list(omendb *db, struct space_list *list);
/* Adds it all up. `target`: collection whose parts are counted in each file, or 0.
 * maintenance_mutex. */
OMENDB_INTERNAL void space_measure(omendb *db, const struct space_list *list, uint64_t target,
                                   struct space *space);
/* Bytes of the sections of an overlay's part. */
OMENDB_INTERNAL uint64_t space_overlay_bytes(const struct segment_file *file, uint32_t part);
/* Bytes of a segment's sections; of all segments of a collection, of which the caller has a
 * reference (no locks). */
OMENDB_INTERNAL uint64_t space_part_bytes(const struct segment *segment);
OMENDB_INTERNAL uint64_t space_collection_bytes(struct collection *collection);
/* What is to be done about dead bytes: *checkpoint: one is needed first; marks the files that are
 * to be left. *over: a quarter of the files is dead. */
OMENDB_INTERNAL int space_look(omendb *db, struct space_list *list, int *checkpoint, int *over);

/* ---- work.c */
/* Dead bytes may have become more, or free to go: they are looked at in the background. Any locks.
 */
OMENDB_INTERNAL void work_notice_space(omendb *db);
/* A collection was dropped, of which the caller has a reference. No locks. */
OMENDB_INTERNAL void work_notice_drop(struct collection *collection);
/* After a call that may have ended rows: without threads, their space is won back here. No locks.
 */
OMENDB_INTERNAL void work_reclaim(omendb *db);
OMENDB_INTERNAL int work_create(omendb *db, int32_t threads); /* queues only */
OMENDB_INTERNAL int work_start(omendb *db);                   /* the threads */
OMENDB_INTERNAL void work_stop(omendb *db);
OMENDB_INTERNAL void work_destroy(omendb *db);
/* Something may be to do in the background. */
OMENDB_INTERNAL void work_notice_index(struct collection *collection);
OMENDB_INTERNAL void work_notice_merge(struct collection *collection);
OMENDB_INTERNAL void work_notice_heat(struct collection *collection);
/* The queues let go of a collection that was dropped: it keeps its files open. The caller has a
 * reference. No locks. */
OMENDB_INTERNAL void work_forget_dropped(struct collection *collection);
/* Called by searches now and then: a collection that is searched while nothing is added shall
 * become one segment, or nearly. 1: it is not yet, so this should be called again. */
OMENDB_INTERNAL int work_notice_reading(struct collection *collection);
/* Called by searches now and then; whether one did within the last second. Then writers with
 * background threads are held back for the sake of searches, else not. */
OMENDB_INTERNAL void work_notice_searching(struct collection *collection);
OMENDB_INTERNAL int work_is_searched(const struct collection *collection);
OMENDB_INTERNAL void work_notice_log(omendb *db);
/* Runs fn(context, i) for i in [0, count) over this thread and idle workers; the first error stops
 * it and is returned. */
OMENDB_INTERNAL int work_parallel(omendb *db, uint64_t count,
                                  int (*fn)(void *context, uint64_t index), void *context);
/* checkpoint_run with all the memory there is, that of copies for speed included. */
OMENDB_INTERNAL int work_checkpoint(omendb *db, int force);
/* What one call did so far about OMENDB_NOMEM; zeroes at first. */
struct work_wait {
    uint64_t until_us;
    uint64_t merges_ended;
    uint32_t checkpoints;
    uint32_t merged;     /* tries for no other reason than that a merge had ended */
    uint32_t given_back; /* copies for speed, after the time was over */
};
/* After OMENDB_NOMEM under memory_limit: makes a checkpoint, waits for a merge, or gives copies for
 * speed back, where that gives memory back; 1: try again. Else the sentence stays. stall_timeout
 * bounds it. */
OMENDB_INTERNAL int work_relieve(omendb *db, struct work_wait *wait);
/* Slows a writer that is about to add `bytes` to the collection; OMENDB_BUSY after stall_timeout.
 */
OMENDB_INTERNAL int work_throttle(struct collection *collection, uint64_t bytes);
/* One unit of background work in this thread; *did = 0: there was none. */
OMENDB_INTERNAL int work_step(omendb *db, int *did);
/* The right to merge, which one thread has at a time. While another thread has it, `progress`
 * (NULL: none) is told how far that one is; OMENDB_DONE when it says to stop. */
OMENDB_INTERNAL int work_merge_begin(omendb *db,
                                     int (*progress)(void *context, uint64_t done, uint64_t total),
                                     void *context);
OMENDB_INTERNAL void work_merge_end(omendb *db);

/* ---- search_source.c, search_plan.c, search_scan.c, search_each.c, search.c */
struct txn_write; /* txn.c */
/* A graph to walk and the vectors by which its hits are compared. */
struct search_target {
    struct graph_view full;   /* the vectors; count = rows that can be scanned */
    struct graph_view walk;   /* of indexed rows, maybe over codes */
    struct code_format codes; /* step 0: none */
    int codes_are_exact;
};
/* A walk as a search does it, for measuring: the rows found, by the distances of their vectors,
 * into scratch->hits, which has places for effort->ef. vector: stored type. effort->k are wanted;
 * more may come, in an order that is less precise. counters: added to. */
OMENDB_INTERNAL int search_walk_target(struct collection *collection,
                                       const struct search_target *target, const uint8_t *vector,
                                       struct scratch *scratch, const struct graph_effort *effort,
                                       size_t *count, struct graph_counters *counters);
/* Stored, of all sources, deleted ones included; *largest: of one. */
OMENDB_INTERNAL uint64_t search_total_rows(const struct version *version, uint64_t *largest);
/* The collection's curve, while it is in force for the version; or NULL. */
OMENDB_INTERNAL const struct calibration *search_own_curve(const struct collection *collection,
                                                           const struct version *version);
/* Which records may be hits: those that pass both. */
struct search_predicate {
    int (*match)(void *context, uint64_t id); /* NULL: all */
    void *context;
    const omendb_filter *filter; /* NULL: all */
};
/* What one call asks, in the engine's terms. */
struct search_request {
    struct collection *collection;
    const struct version *version;
    uint64_t commit;
    omendb_txn *txn;          /* NULL, or a writing one: its own changes count */
    const uint8_t *vector;    /* stored type */
    uint64_t excluded_id;     /* OMENDB_ID_AUTO: none */
    const uint64_t *excluded; /* ascending: records that are no hits, beside that one */
    size_t excluded_count;
    size_t k, ef;
    int exact, use_radius;
    float radius;
    float recall;                             /* 0: by ef and stretch */
    uint64_t deadline_us;                     /* by the clock of the vfs; 0: none */
    float stretch;                            /* of graph_effort; 0: ef alone decides */
    const struct search_predicate *predicate; /* NULL: all */
    uint64_t batch;  /* of queries with the same version, commit and predicate; 0: of this one */
    uint64_t others; /* of them, run by the same thread, at least */
    const char *group_by; /* of groups_run: a field, or NULL, */
    size_t group_size;    /* and the hits that each of its values may have */
    /* Filled by search_run: */
    uint64_t largest;      /* rows of the largest memtable or segment */
    uint64_t visible_rows; /* of all memtables, those at `commit`, and of all segments */
    double hidden_share;   /* of the stored rows: changed by the transaction, and left out like
                            * deleted ones; 0: none, or so few that they are left out by id */
};
/* What the efforts in all sources follow from. */
struct search_plan {
    const struct calibration *own;  /* the collection's curve, or NULL */
    struct calibration_answer most; /* of what curves gave by work, for sources without one */
    size_t ef;                      /* the greatest of any source */
};
/* The plan for k hits; search_run makes it first. */
OMENDB_INTERNAL void search_make_plan(const struct search_request *request, size_t k,
                                      struct search_plan *plan);
/* OMENDB_TIMEOUT when it is past. */
OMENDB_INTERNAL int search_check_deadline(const struct search_request *request);
OMENDB_INTERNAL int search_run(const struct search_request *request, struct scratch *scratch,
                               uint64_t *ids, float *distances, size_t *count,
                               omendb_explain *explain);
/* Hands out each record that the request sees and its predicate matches, in no order, but one
 * memtable or segment after the other: where it is stored, or, with both pointers NULL, the change
 * of the transaction that has it (else NULL). Ends with the first code of `each` that is not
 * OMENDB_OK. Only collection, version, commit, txn and predicate are read. */
OMENDB_INTERNAL int search_each_location(const struct search_request *request,
                                         int (*each)(void *context, const struct location *location,
                                                     const struct txn_write *own),
                                         void *context);
/* The same of memtable number `index` of the version alone, or, counted on behind those, segment;
 * but for changes of the transaction. *few: 1: at most `most` of its rows can match; 0: more can,
 * or it is not known, and none was handed out. */
OMENDB_INTERNAL int search_each_of_few(const struct search_request *request, uint32_t index,
                                       uint32_t most,
                                       int (*each)(void *context, const struct location *location,
                                                   const struct txn_write *own),
                                       void *context, int *few);
/* All, by id. */
OMENDB_INTERNAL int search_each_match(const struct search_request *request,
                                      int (*each)(void *context, uint64_t id), void *context);

/* ---- calibrate.c */
/* Those of the rows [first, rows) that a merge is to insert last. count 0: too few to tell
 * anything. */
OMENDB_INTERNAL void calibrate_choose(uint32_t first, uint32_t rows, struct graph_held *held);
/* The curve of a graph of `rows` rows that lacks only the held ones. No entries: there was no
 * memory for it. OMENDB_DONE: the database is closing. */
OMENDB_INTERNAL int calibrate_held_rows(struct collection *collection,
                                        const struct search_target *target, uint32_t rows,
                                        const struct graph_held *held,
                                        struct calibration *calibration);
/* omendb_calibrate, arguments checked; queries in the stored type, one after the other. */
OMENDB_INTERNAL int
calibrate_collection(struct collection *collection, const uint8_t *queries, uint32_t count,
                     int (*progress)(void *context, uint64_t done, uint64_t total), void *context);

/* ---- txn.c */
struct txn_write {
    struct collection *collection; /* referenced */
    uint64_t id;
    uint8_t *vector;   /* stored type; NULL: deleted */
    uint8_t *document; /* NULL: none */
    uint32_t added;    /* 1: the id was free at the snapshot */
    uint32_t updated;  /* 1: only its document is another one than at the snapshot */
};

/* A cursor that reads a transaction's own changes; the transaction tells it when they go. */
struct txn_cursor {
    struct txn_cursor *next;
    int ended;
};

struct omendb_txn {
    uint32_t magic;
    omendb *db;
    int mode;
    uint64_t snapshot;
    uint64_t begun_us;
    struct omendb_txn *next, *previous; /* txn_mutex */
    struct txn_write *writes;
    size_t write_count, write_capacity;
    uint64_t needs;  /* its part of txn_needs */
    uint32_t *table; /* index + 1 of writes by collection and id; open addressing */
    size_t table_slots;
    /* The same by collection and key. Entries of writes that have another key by now stay. */
    uint32_t *keys;
    size_t key_slots, key_entries;
    struct txn_cursor *cursors;
};

OMENDB_INTERNAL int txn_begin(omendb *db, int mode, omendb_txn **txn);
/* prepare_as: NULL, or under which name it is only prepared. */
OMENDB_INTERNAL int txn_commit(omendb_txn *txn, const char *prepare_as);
OMENDB_INTERNAL void txn_end(omendb_txn *txn); /* frees; NULL is OK */
/* The oldest one, as it is now; 0: none is open. */
OMENDB_INTERNAL uint64_t txn_count(omendb *db, uint64_t *oldest, uint64_t *begun_us);
/* The transaction's own change of a record, or NULL. */
OMENDB_INTERNAL const struct txn_write *txn_find(const omendb_txn *txn,
                                                 const struct collection *collection, uint64_t id);
/* The record that has the key as the transaction sees it (NULL: none, as of `commit`).
 * *id: OMENDB_ID_AUTO: there is none. */
OMENDB_INTERNAL int txn_find_key(const omendb_txn *txn, const struct version *version,
                                 const struct collection *collection, uint64_t commit,
                                 const uint8_t *key, uint32_t size, uint64_t *id);
/* The cursor is told when the transaction ends, unless it is removed before. */
OMENDB_INTERNAL void txn_add_cursor(omendb_txn *txn, struct txn_cursor *cursor);
OMENDB_INTERNAL void txn_remove_cursor(omendb_txn *txn, struct txn_cursor *cursor);
/* Takes a validated change over (copies vectors; of an update those of the records, so that they
 * are found by them). */
OMENDB_INTERNAL int txn_apply(omendb_txn *txn, struct change *change);
/* Bytes that the changed records hold until the commit and take at it, where rows go to a memtable.
 */
OMENDB_INTERNAL uint64_t txn_change_needs(const struct change *change);
/* Smallest commit that a transaction reads at, at most the newest visible one. */
OMENDB_INTERNAL uint64_t txn_oldest(omendb *db);
/* Whether one reads at or after `first` and before `end`. */
OMENDB_INTERNAL int txn_reads_between(omendb *db, uint64_t first, uint64_t end);

/* ---- database.c */
/* A locked file, which is closed in a forked child: that would hold on to the lock. */
struct database_held {
    const omendb_vfs *vfs;
    struct storage_file *file; /* a closed one is OK */
    struct database_held *next;
};
OMENDB_INTERNAL void database_hold(struct database_held *held); /* before the file is opened */
OMENDB_INTERNAL void database_let_go(struct database_held *held);

/* ---- check.c, backup.c, salvage.c */
OMENDB_INTERNAL int check_run(omendb *db, void (*report)(void *context, const char *line),
                              void *context, uint64_t *problems);
OMENDB_INTERNAL int backup_run(omendb *db, const char *path);
/* OMENDB_INVALID: the path is inside of the directory of `storage`, or would be. */
OMENDB_INTERNAL int backup_check_target(const struct storage *storage, const char *path);
OMENDB_INTERNAL int salvage_run(const char *path, const char *new_path,
                                const omendb_options *options,
                                void (*report)(void *context, const char *line), void *context,
                                omendb_salvage_result *result);

/* ---- purge.c */
/* name: NULL for all that was ever deleted. */
OMENDB_INTERNAL int purge_run(omendb *db, const char *name);

#endif
