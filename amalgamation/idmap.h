/* idmap.h: from the id of a record to its row.
 *
 * In a memtable: an open-addressing table of row numbers, grown by replacement; a reader that holds
 * an older table misses only rows whose commit it cannot see yet. An id that was replaced keeps its
 * older rows through `previous`. In a segment: ids ascending (the row order itself, or a sorted
 * copy with its rows), and a blocked Bloom filter of 10 bits a row that answers most questions
 * about absent ids with one cache line.
 *
 * Filter: blocks of 64 bytes, count = max(1, rows * 10 / 512 rounded up). Of h = mix(id): block (h
 * >> 32) * count >> 32; six bits of 9 bits each taken from mix(h). */
#ifndef OMENDB_IDMAP_H
#define OMENDB_IDMAP_H

#include "internal.h"
#include "graph.h"

#define IDMAP_FILTER_BLOCK 64

struct idmap_table {
    uint32_t mask; /* slots - 1 */
    struct idmap_table *older;
    /* row + 1; 0: empty. Stored release by the one writer after the row was written; loaded
     * acquire. Who still has an outgrown table misses only rows that are newer than it. */
    _Atomic uint32_t slot[];
};

struct idmap {
    struct memory *memory;
    _Atomic(struct idmap_table *) table; /* stored release when filled; loaded acquire */
    uint32_t used;
    uint64_t seed;                /* of places in the table */
    const struct rows_store *ids; /* of the memtable's rows */
};

OMENDB_INTERNAL void idmap_init(struct idmap *map, struct memory *memory,
                                const struct rows_store *ids, uint64_t seed);
OMENDB_INTERNAL void idmap_destroy(struct idmap *map);
/* After it `more` insertions cannot fail. */
OMENDB_INTERNAL int idmap_reserve(struct idmap *map, uint32_t more);
/* What that would take. */
OMENDB_INTERNAL size_t idmap_reserve_bytes(const struct idmap *map, uint32_t more);
/* Makes `row` the newest of `id`; returns the row that was, or GRAPH_NO_ROW. */
OMENDB_INTERNAL uint32_t idmap_insert(struct idmap *map, uint64_t id, uint32_t row);
/* As idmap_insert for an id that is not there; looks at no other. */
OMENDB_INTERNAL void idmap_insert_new(struct idmap *map, uint64_t id, uint32_t row);
OMENDB_INTERNAL void idmap_prefetch(const struct idmap *map, uint64_t id);
/* The newest row of `id`, or GRAPH_NO_ROW. */
OMENDB_INTERNAL uint32_t idmap_find(const struct idmap *map, uint64_t id);

OMENDB_INTERNAL uint64_t idmap_mix(uint64_t value);

OMENDB_INTERNAL size_t idmap_filter_bytes(uint32_t rows);
OMENDB_INTERNAL void idmap_filter_add(uint8_t *filter, size_t bytes, uint64_t id);
/* Offset of the 64-byte block that answers for `id`, and the answer given that block. */
OMENDB_INTERNAL size_t idmap_filter_offset(size_t bytes, uint64_t id);
OMENDB_INTERNAL int idmap_filter_has(const uint8_t *block, uint64_t id);

#endif
