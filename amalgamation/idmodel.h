/* idmodel.h: a learned index over ascending ids, equal ones included: where an id is, or would go,
 * to within IDMODEL_REACH places, from pieces of straight lines.
 *
 * A piece begins at an id and its place and has a slope; of the ids from it on, up to the next
 * piece, it tells the place of the first of equal ones with an error below the reach. The
 * first ids of the pieces are the leaves of a tree of nodes of 16 keys, whose levels lie one after
 * the other: each has every 16th key of the one below it. format.h has the bytes, which are derived
 * from the ids and may be left out.
 *
 * Nothing that a model says is trusted: whatever its bytes are, a window lies inside the ids, and
 * who searches it finds out, by the ids at its ends, whether the answer is in it.
 *
 * Measured (Xeon, Sapphire Rapids, 2 MiB of L2, shared with others; bench/bench_ids.cpp prints the
 * table): of 10,000,000 random ids 18,228 pieces in 437 KB, of ids without lines 109,593 in 2.6 MB,
 * where a reach of 8 needs 2.1 and 6.7 MB, and one of 64 23 KB and 1.0 MB but windows of 17 cache
 * lines. Batches of random lookups were fastest with 16.
 *
 * Rejected: a search by halves of the window, which compilers made of jumps (a quarter of the speed
 * in cache); the fewest pieces that are possible, by convex hulls (PGM-index, Ferragina and
 * Vinciguerra, PVLDB 13, 2020), which need memory for a piece while it grows: a line that begins
 * at its first id (FITing-Tree, Galakatos et al., SIGMOD 2019) needs twice as many pieces of random
 * ids, which still fit the cache; pieces that are found by pieces, whose searches depend on each
 * other; a table by the leading bits of ids (RadixSpline), which one far id makes useless. */
#ifndef OMENDB_IDMODEL_H
#define OMENDB_IDMODEL_H

#include "internal.h"
#include "memory.h"

#include <string.h>

#define IDMODEL_REACH    16
#define IDMODEL_WINDOW   32 /* ids around a prediction that are searched */
#define IDMODEL_NODE     16 /* keys */
#define IDMODEL_LEVELS   8
#define IDMODEL_MIN_ROWS 1024 /* a search by halves of fewer ids is as fast */

_Static_assert(IDMODEL_WINDOW == 2 * IDMODEL_REACH, "a window reaches to both sides");

/* Where the parts of a section lie. `bytes` NULL: there is no model. */
struct idmodel {
    const uint8_t *bytes;
    uint32_t rows;
    uint32_t pieces;
    uint32_t levels;                /* of keys, at least 1 */
    uint32_t keys[IDMODEL_LEVELS];  /* of each level, 0: the leaves */
    size_t offsets[IDMODEL_LEVELS]; /* of each level, in bytes */
    size_t lines;                   /* offset of slopes and places */
};

/* 0: no model of so many rows has a section of this length. Reads no byte of it. */
OMENDB_INTERNAL int idmodel_open(struct idmodel *model, const uint8_t *bytes, uint64_t length,
                                 uint32_t rows);
/* Whether the bytes, which were verified, are a model that this version can use. */
OMENDB_INTERNAL int idmodel_is_usable(const struct idmodel *model);
/* The first place of the window of IDMODEL_WINDOW ids for the first id that is not below `id`;
 * `rows` are at least as many. */
OMENDB_INTERNAL uint32_t idmodel_window(const struct idmodel *model, uint64_t id);
/* NULL, or what is wrong with it, given the ascending ids. */
OMENDB_INTERNAL const char *idmodel_check(const struct idmodel *model, const uint64_t *ids);

/* How many of 4 or 8 ids that lie one after the other are below `id`. Sums of comparisons, which
 * compilers turn into no jumps: of random ids each would be guessed wrong every other time. */
static inline uint32_t idmodel_count_4(const uint64_t *ids, uint64_t id)
{
    return (uint32_t)(ids[0] < id) + (ids[1] < id) + (ids[2] < id) + (ids[3] < id);
}

static inline uint32_t idmodel_count_8(const uint64_t *ids, uint64_t id)
{
    return idmodel_count_4(ids, id) + idmodel_count_4(ids + 4, id);
}

/* Places in the window, from 0 to IDMODEL_WINDOW, before the first id that is not below `id`. */
static inline uint32_t idmodel_search(const uint64_t *ids, uint64_t id)
{
    uint32_t eights = (uint32_t)(ids[7] < id) + (ids[15] < id) + (ids[23] < id);
    return eights * 8 + idmodel_count_8(ids + eights * 8, id);
}

/* Makes a model of ids that are given one by one, ascending. */
struct idmodel_piece {
    uint64_t key;
    double slope;
    uint32_t place;
};

struct idmodel_builder {
    struct memory *memory;
    struct idmodel_piece *pieces;
    size_t count, capacity;
    double low, high; /* slopes that the last piece may have */
    uint64_t last;
    uint32_t rows;
    int starved; /* there was no memory for a piece: there will be no model */
};

OMENDB_INTERNAL void idmodel_begin(struct idmodel_builder *builder, struct memory *memory);
OMENDB_INTERNAL void idmodel_add(struct idmodel_builder *builder, uint64_t id);
/* The section, of *size bytes (memory_free); NULL: too few ids, or no memory. */
OMENDB_INTERNAL uint8_t *idmodel_finish(struct idmodel_builder *builder, size_t *size);
OMENDB_INTERNAL void idmodel_end(struct idmodel_builder *builder);

#endif
