/* memtable.h: the growing segment. Rows are appended in the order of commits and never move; the
 * graph over them is built behind the writers, and the rows not yet in it (the tail) are searched
 * exactly.
 *
 * With codes the graph keeps those, as its rows, and the vectors lie beside it. Their range is
 * chosen before the first row, from what is known then; sealing chooses anew.
 *
 * One that takes what is replayed has neither graph nor codes: the checkpoint that follows comes
 * before any of its rows could be linked, and a read-only opener builds nothing.
 *
 * Documents lie in blocks that never move and are found through a pointer a row; the stores for
 * them and for keys come into being with the first one. Keys are found as ids are, by a hash of 64
 * bits in place of the id; `key_previous` leads on to older rows of the same hash, be it of the
 * same key or not, so whoever looks compares the key.
 *
 * Rows [0, count) are complete. Rows [0, indexed) are in the graph; a few beyond may be, too, while
 * several threads insert. Guarded by the commit mutex: reserve, append, replacing of rows. Anything
 * else reads with acquire.
 *
 * Atomics: `documented` is stored release after the stores of documents were made, so who loads it
 * acquire finds them, whatever rows it knows. `count` is stored release after all of the row,
 * `inexact` and `newest_begin` (relaxed) were, so who loads it acquire sees them; a row found
 * through the map of ids may be above it, and its begin is then above any visible commit.
 * `claimed`, `indexed` and a row's byte in `finished` are compared-and-exchanged sc: one thread
 * links a row, and who sees it below `indexed` (acquire) sees its links. `sealed` and `inserting`,
 * both sc, are a handshake: one side stores the first and loads the second, the other adds to the
 * second and loads the first, so not both go on. `poor` is a count that decides about speed only
 * (relaxed). */
#ifndef OMENDB_MEMTABLE_H
#define OMENDB_MEMTABLE_H

#include "internal.h"
#include "codes.h"
#include "document.h"
#include "graph.h"
#include "hash.h"
#include "idmap.h"
#include "tombstones.h"

struct memtable {
    _Atomic uint32_t references;
    struct memory *memory;
    struct graph *graph;
    struct code_format codes;   /* step 0: none, the graph keeps the vectors */
    uint32_t graphless;         /* 1: no row is linked; set before it is shown */
    struct rows_store vectors;  /* used when there are codes, or no graph */
    _Atomic uint32_t inexact;   /* 1: a code is not its vector; set before the row is shown */
    _Atomic uint32_t poor;      /* rows with CODE_POOR since the drift was last forgiven */
    uint32_t codes_tried;       /* 1: the vectors gave no range; commit mutex */
    struct rows_store ids;      /* uint64_t */
    struct rows_store begins;   /* uint64_t: commit that added the row */
    struct rows_store previous; /* uint32_t: older row of the same id, or GRAPH_NO_ROW */
    struct idmap idmap;
    _Atomic uint32_t documented;    /* 1: rows have documents; set before the first such is shown */
    struct rows_store documents;    /* const uint8_t *: NULL: none; reserved once `documented` */
    struct document_block *blocks;  /* that they lie in, newest first; commit mutex */
    struct hash_seed seed;          /* of hashes of keys */
    struct rows_store key_hashes;   /* uint64_t, of rows that have a key */
    struct rows_store key_previous; /* uint32_t: older row of the same hash, or GRAPH_NO_ROW */
    struct idmap keymap;            /* over key_hashes */
    struct tombstones *tombstones;
    size_t vector_bytes;
    _Atomic uint32_t count;
    _Atomic uint32_t indexed;
    _Atomic uint32_t claimed;   /* next row to index */
    _Atomic uint32_t inserting; /* threads inside memtable_index */
    _Atomic uint32_t sealed;    /* 1: no further indexing */
    struct rows_store finished; /* uint8_t (atomic): free, taken, linked; moves `indexed` on */
    _Atomic uint64_t newest_begin;
};

/* config: of a graph over the vectors. codes: step 0: none. graphless: 1: as above; step 0. seed:
 * of hashes of keys. */
OMENDB_INTERNAL int memtable_create(struct memory *memory, const struct graph_config *config,
                                    const struct code_format *codes, int graphless,
                                    const struct hash_seed *seed, struct memtable **memtable);
OMENDB_INTERNAL struct memtable *memtable_reference(struct memtable *memtable);
OMENDB_INTERNAL void memtable_release(struct memtable *memtable); /* NULL is OK */

/* After it `more` appends, of which `keys` have a key and all together `documents` bytes of
 * documents, cannot fail. OMENDB_NOMEM, OMENDB_TOOBIG. */
OMENDB_INTERNAL int memtable_reserve(struct memtable *memtable, uint32_t more, uint32_t keys,
                                     size_t documents);
/* document: copied; NULL: none. is_new: 1: no row of the memtable has the id. */
OMENDB_INTERNAL void memtable_append(struct memtable *memtable, uint64_t id, const void *vector,
                                     const uint8_t *document, uint64_t commit, int is_new);
/* Asks for what the appending of `id` will read. */
OMENDB_INTERNAL void memtable_prefetch(const struct memtable *memtable, uint64_t id);

OMENDB_INTERNAL const uint8_t *memtable_vector(const struct memtable *memtable, uint32_t row);
/* Of the rows that `count` showed before the call. */
OMENDB_INTERNAL struct rows_view memtable_vectors(const struct memtable *memtable);
/* Its codes do not fit the rows that came: the graph is of no use. */
OMENDB_INTERNAL int memtable_has_drifted(const struct memtable *memtable);
/* No other codes would fit better: the drift is forgotten, until there are many poor rows again.
 * Commit mutex. */
OMENDB_INTERNAL void memtable_forgive(struct memtable *memtable);
/* The first rows, which a graph of use has; the others are searched exactly. Acquire: a count that
 * is read next is not behind it. */
OMENDB_INTERNAL uint32_t memtable_graph_rows(const struct memtable *memtable);
OMENDB_INTERNAL uint64_t memtable_id(const struct memtable *memtable, uint32_t row);
OMENDB_INTERNAL uint64_t memtable_begin(const struct memtable *memtable, uint32_t row);
/* Newest row of the id, or the one before `row`; GRAPH_NO_ROW: none. */
OMENDB_INTERNAL uint32_t memtable_find(const struct memtable *memtable, uint64_t id);
OMENDB_INTERNAL uint32_t memtable_previous(const struct memtable *memtable, uint32_t row);
/* As long as the memtable; NULL: none. */
OMENDB_INTERNAL const uint8_t *memtable_document(const struct memtable *memtable, uint32_t row);
/* Of all documents; of a memtable that does not grow any more. */
OMENDB_INTERNAL uint64_t memtable_document_bytes(const struct memtable *memtable);
/* Newest row with this key, of which `hash` is the hash by the seed; GRAPH_NO_ROW: none. The next
 * older one is found from it by memtable_previous_key. */
OMENDB_INTERNAL uint32_t memtable_find_key(const struct memtable *memtable, const uint8_t *key,
                                           uint32_t size, uint64_t hash);
OMENDB_INTERNAL uint32_t memtable_previous_key(const struct memtable *memtable, const uint8_t *key,
                                               uint32_t size, uint32_t row);
/* Number of rows with begin <= commit; they are the first ones. */
OMENDB_INTERNAL uint32_t memtable_visible_rows(const struct memtable *memtable, uint64_t commit);

/* Links up to `rows` further rows with begin <= commit. done: receives how many. Any number of
 * threads. */
OMENDB_INTERNAL int memtable_index(struct memtable *memtable, struct graph_scratch *scratch,
                                   uint64_t commit, uint32_t rows, uint32_t *done);
/* Stops appending and indexing, and waits for the rows under way. */
OMENDB_INTERNAL void memtable_seal(struct memtable *memtable);

#endif
