/* graph.h: the HNSW graph (Malkov and Yashunin, arXiv 1603.09320): building and walking.
 *
 * One kind of graph serves the growing memtable, the building of a merged segment, and (as a view
 * only) a sealed segment. A row is a uint32_t. Per row: its vector, `links_per_row` = 2 * M
 * neighbour slots at the base, a level, and for levels above 0 a run of `level` upper blocks of M
 * slots each. An empty slot holds the row's own number, so that no degree is stored and a walker,
 * which has marked the row as visited, skips it without a branch of its own.
 *
 * Memory order. A row's vector, level and own links are written before its number is stored
 * (release) in any other row's slot or as the entry point; a walker loads slots with acquire, so
 * whatever row it learns of is complete. Walkers never lock and accept a stale mix and duplicates.
 * Writers of one row's slots exclude each other by a striped lock. */
#ifndef OMENDB_GRAPH_H
#define OMENDB_GRAPH_H

#include "internal.h"
#include "blocks.h"
#include "kernels.h"
#include "memory.h"

#include <stdatomic.h>

#define GRAPH_NO_ROW    UINT32_MAX
#define GRAPH_MAX_LEVEL 16
#define GRAPH_MAX_ROWS  (UINT32_C(1) << 31)

/* Rows of fixed stride in chunks that never move: address = chunks[row >> shift] + (row & mask) *
 * stride. One chunk (shift 31) for a section of a sealed segment. */
struct rows_view {
    uint8_t *const *chunks;
    uint32_t shift;
    uint32_t mask;
    size_t stride;
};

static inline uint8_t *rows_at(const struct rows_view *rows, uint32_t row)
{
    return rows->chunks[row >> rows->shift] + (size_t)(row & rows->mask) * rows->stride;
}

/* A growing array of rows. Readers take a view after they learned of a row (acquire); the writer is
 * one at a time. Granules of 64 rows carved from allocations that grow from 64 rows to about 1 MiB.
 * The directory is replaced when it grows; old ones are kept until the end, so that a view taken
 * earlier stays valid. */
#define ROWS_SHIFT 6
struct rows_store {
    struct memory *memory;
    size_t stride;
    _Atomic(uint8_t **) directory; /* stored release with what it had copied; loaded acquire */
    uint32_t directory_capacity;   /* in granules */
    uint32_t reserved;             /* rows; guarded by the writer */
    uint32_t first_rows;           /* rows of the first allocation, written once */
    struct rows_allocation *allocations;
};
OMENDB_INTERNAL void rows_store_init(struct rows_store *store, struct memory *memory,
                                     size_t stride);
OMENDB_INTERNAL int rows_store_reserve(struct rows_store *store,
                                       uint32_t rows); /* zeroed; OMENDB_NOMEM leaves it usable */
/* What that would take. */
OMENDB_INTERNAL size_t rows_store_reserve_bytes(const struct rows_store *store, uint32_t rows);
OMENDB_INTERNAL void rows_store_destroy(struct rows_store *store);
OMENDB_INTERNAL struct rows_view rows_store_view(const struct rows_store *store);

/* What a walk needs; plain values, cheap to copy. */
struct graph_view {
    struct rows_view vectors;
    struct rows_view links; /* uint32_t[links_per_row] */
    struct rows_view
        upper_index; /* uint32_t: first upper block of the row; meaningless at level 0 */
    struct rows_view upper_links; /* uint32_t[M] a block: block upper_index + (level - 1) is the
                                     row's at `level` */
    struct rows_view levels;      /* uint8_t */
    uint32_t count;               /* rows; every number read from a slot is checked against it */
    uint32_t upper_count;         /* upper blocks */
    uint32_t M;
    uint32_t links_per_row;
    uint32_t entry_row; /* GRAPH_NO_ROW: nothing is linked */
    uint32_t entry_level;
    size_t dim;
    const struct kernel *kernel;
    /* A sealed segment: blocks must be verified before use (blocks_touch). NULL file: nothing to
     * verify. A section with the offset UINT64_MAX is not in the file. */
    struct block_file *file;
    uint64_t vectors_offset, links_offset, upper_index_offset, upper_links_offset, levels_offset;
};

struct graph_hit {
    float distance;
    uint32_t row;
};

/* Which rows may be returned. Rows that may not are still walked through. */
struct graph_filter {
    uint32_t row_limit;                                /* rows at or beyond are not returned */
    uint32_t excluded_row;                             /* not returned; GRAPH_NO_ROW: none */
    int (*visible)(const void *context, uint32_t row); /* NULL: all */
    const void *context;
    /* NULL, or asks for the memory that `visible` will read of the row. */
    void (*prefetch)(const void *context, uint32_t row);
    const uint64_t *chosen; /* NULL: all; else a bit for each row below row_limit: only those set */
};

/* The place of the lowest bit that is set; there is one. */
static inline uint32_t graph_lowest_bit(uint64_t word)
{
#if defined(__GNUC__) || defined(__clang__)
    return (uint32_t)__builtin_ctzll(word);
#else
    uint32_t place = 0;
    for (; (word & 1) == 0; word >>= 1)
        place++;
    return place;
#endif
}

struct graph_counters {
    uint64_t expanded;
    uint64_t distances;
};

/* Working memory of one walk at a time: visited marks, pools. Grows on demand, is kept between
 * walks. */
struct graph_scratch;
OMENDB_INTERNAL struct graph_scratch *
graph_scratch_create(struct memory *memory); /* NULL: no memory */
OMENDB_INTERNAL void graph_scratch_destroy(struct graph_scratch *scratch);
/* The pools, which grow with ef, k and the hidden rows near a query; not the marks, which grow with
 * the rows. */
OMENDB_INTERNAL size_t graph_scratch_keys_bytes(const struct graph_scratch *scratch);
OMENDB_INTERNAL void graph_scratch_drop_keys(struct graph_scratch *scratch);

/* How far a walk has come: of how many rows within its bound the filter was asked, and how many of
 * those may be returned. */
struct graph_progress {
    uint64_t distances;
    uint64_t asked, passed;
};

/* How far a walk goes. With a stretch of 0 it ends when the nearest row that is not expanded is
 * farther than the worst of the `ef` nearest returnable rows found. With a greater one it ends also
 * when that row is farther than
 *
 *     bound = d + (stretch - 1) * |d - origin|
 *
 * where d is the distance of the k-th nearest returnable row found so far, and takes up nothing
 * beyond the bound (Distance Adaptive Beam Search, arXiv 2505.15636); `ef` is then a cap. Easy
 * queries thus end early and hard ones go on. The bound grows with the stretch, from d itself at 1.
 *
 * origin: the distance from which the stretch counts, 0 for squared L2, cosine and Hamming, so that
 * the bound is stretch * d (of squared L2: stretch is the square of the ratio of lengths). Inner
 * products are negative and have no natural zero: with -(|query| * |longest row|), which none is
 * below, and rows of one length a stretch means what it means for cosine; with 0 the bound of d < 0
 * is (2 - stretch) * d.
 *
 * With `fits` both are meant for a walk that nothing is hidden from, and follow from the share s of
 * the rows within the bound that the filter lets through, counted once k have passed: where all
 * near rows are hidden, those say nothing about the part in which the hits lie. Then k hits lie
 * among k / s rows, and of more rows a walk finds the same part with less for each. ef becomes k +
 * (ef - k) * sqrt(s), as where segments share one, and stretch 1 + (stretch - 1) * sqrt(sqrt(s)).
 * Over SIFT, 200,000 and 1,000,000 rows, recall@10 stayed above that without a filter less 0.001,
 * for shares of 50 to 0.3 % and for parts of the space; with ef as it is given a walk computes
 * twice the distances at 10 %. Not of a pool of thousands.
 *
 * But where clearly fewer of the near rows pass than of all, the hits lie away from the query: then
 * less is found with the same effort, and it grows, ef to GRAPH_AWAY_EF. Of 40,000 rows in 60
 * clusters, of which 42 % of the rows pass, whole clusters at a time, recall@10 with an ef of 64 is
 * 0.855 with the shrunk effort and 0.956 with this one; without a filter it is 0.983. */
struct graph_effort {
    size_t ef;
    size_t k; /* from 1 to ef; read when there is a stretch, or `fits` */
    float stretch;
    float origin;
    size_t wanted; /* of the nearest found, how many are kept even beyond the bound; 0: all */
    double share;  /* with `fits`: the share of all rows that may be returned; 0: not known */
    uint32_t share_sample; /* as so many of them tell; 0: all */
    int fits; /* 1: `ef` and `stretch` are meant for a walk that nothing is hidden from; see above
               */
    /* Asked after look_at distances, and again after as many as it answers: when to look next. An
     * answer not above the distances so far gives the walk up. NULL: never asked. */
    uint64_t (*look)(void *context, const struct graph_progress *progress);
    void *look_context;
    uint64_t look_at;
};
#define GRAPH_AWAY_EF(ef) (2 * (ef))

/* The effort->ef nearest returnable rows that a walk finds, ascending by (distance, row); with a
 * stretch maybe fewer, of which the first k are meant. hits: effort->ef places, with a share
 * GRAPH_AWAY_EF(effort->ef). filter: NULL: all.
 * counters: added to; NULL: none. Returns OMENDB_OK, OMENDB_NOMEM, OMENDB_CORRUPT, OMENDB_IOERR, or
 * OMENDB_DONE without hits: it was given up. */
OMENDB_INTERNAL int graph_search(const struct graph_view *view, struct graph_scratch *scratch,
                                 const void *query, const struct graph_effort *effort,
                                 const struct graph_filter *filter, struct graph_hit *hits,
                                 size_t *count, struct graph_counters *counters);

/* The `k` nearest returnable rows among [first, last), merged into `hits`, which holds *count
 * ascending hits (at most k) already: exact. The same returns. */
OMENDB_INTERNAL int graph_scan(const struct graph_view *view, struct graph_scratch *scratch,
                               const void *query, uint32_t first, uint32_t last, size_t k,
                               const struct graph_filter *filter, struct graph_hit *hits,
                               size_t *count, struct graph_counters *counters);

/* Hands out each returnable row among [first, last) with its distance, in the order of rows. Ends
 * with the first code of `each` that is not OMENDB_OK. Returns it, or as graph_search. */
OMENDB_INTERNAL int graph_scan_each(const struct graph_view *view, const void *query,
                                    uint32_t first, uint32_t last,
                                    const struct graph_filter *filter,
                                    int (*each)(void *context, uint32_t row, float distance),
                                    void *context, struct graph_counters *counters);

/* Chosen rows of a view, copied to lie one after the other for many queries. Never moved once there
 * is something in it: the view points into it. */
struct graph_gathered {
    struct memory *memory;
    uint8_t *vectors;
    uint32_t *rows; /* whose vectors they are, ascending */
    size_t bytes, places;
    uint32_t count; /* 0: there are none */
    struct graph_view view;
};

/* The `count` > 0 rows of which bits are set in `chosen`, no more and no fewer; `gathered` has
 * nothing but `memory`, or was made before. OMENDB_NOMEM, OMENDB_CORRUPT, OMENDB_IOERR: then there
 * are none. */
OMENDB_INTERNAL int graph_gather(struct graph_gathered *gathered, const struct graph_view *view,
                                 const uint64_t *chosen, uint32_t count);
OMENDB_INTERNAL void graph_gathered_destroy(struct graph_gathered *gathered);
/* As graph_scan of those rows, from no hits on. */
OMENDB_INTERNAL int graph_scan_gathered(const struct graph_gathered *gathered,
                                        struct graph_scratch *scratch, const void *query, size_t k,
                                        struct graph_hit *hits, size_t *count,
                                        struct graph_counters *counters);

/* A graph under construction. */
struct graph_config {
    uint32_t M;
    uint32_t ef_construction;
    uint64_t seed;
    size_t dim;
    size_t vector_bytes;
    const struct kernel *kernel;
};

struct graph;

/* vectors: NULL: the graph keeps them itself (see graph_vector); else a view of all rows that will
 * ever be, borrowed until destroyed, with `vectors_file` to verify blocks through (or NULL) and
 * `vectors_offset` of its section. */
OMENDB_INTERNAL int graph_create(struct memory *memory, const struct graph_config *config,
                                 const struct rows_view *vectors, struct block_file *vectors_file,
                                 uint64_t vectors_offset, struct graph **graph);
OMENDB_INTERNAL void graph_destroy(struct graph *graph);

/* Makes room for rows [0, rows), their links, and assigns their levels (a hash of seed and row, so
 * independent of the order of insertion) and upper blocks: after it nothing needs memory but the
 * scratch. One thread at a time; walkers may run. */
OMENDB_INTERNAL int graph_reserve(struct graph *graph, uint32_t rows);
/* What that would take. */
OMENDB_INTERNAL size_t graph_reserve_bytes(const struct graph *graph, uint32_t rows);

/* Address of the row's own vector (graphs that keep them); the caller writes it before graph_insert
 * or graph_set_count shows it. */
OMENDB_INTERNAL uint8_t *graph_vector(struct graph *graph, uint32_t row);

/* Rows [0, count) hold vectors (release). Rows are linked later, by graph_insert. */
OMENDB_INTERNAL void graph_set_count(struct graph *graph, uint32_t count);

/* Links one row. Any number of threads, each with its own scratch and row; walkers may run. Row <
 * count; once a row. Returns OMENDB_OK, OMENDB_NOMEM (nothing linked), OMENDB_CORRUPT,
 * OMENDB_IOERR. */
OMENDB_INTERNAL int graph_insert(struct graph *graph, struct graph_scratch *scratch, uint32_t row);

/* Takes over a finished graph: row r of `source` ([0, source->count), all linked) becomes
 * old_to_new[r], or is dropped (GRAPH_NO_ROW). Kept rows keep their levels (call graph_reserve
 * afterwards for the rest; rows of `graph` that receive one must be [0, kept)). Links to dropped
 * rows are replaced: candidates are the remaining neighbours and, through dropped ones, their kept
 * neighbours, picked by the same heuristic as in building. Threads: split by calling
 * graph_adopt_begin once, then graph_adopt_rows for disjoint ranges of source rows from any
 * threads, then graph_adopt_end, before which the vectors of rows [0, kept) must be there; it shows
 * them. */
OMENDB_INTERNAL int graph_adopt_begin(struct graph *graph, const struct graph_view *source,
                                      const uint32_t *old_to_new, uint32_t kept);
OMENDB_INTERNAL int graph_adopt_rows(struct graph *graph, const struct graph_view *source,
                                     const uint32_t *old_to_new, struct graph_scratch *scratch,
                                     uint32_t first, uint32_t last);
OMENDB_INTERNAL int graph_adopt_end(struct graph *graph);

/* Takes all rows from `rows` on out of the lists of those before: of an insertion that failed
 * half-way, and of rows that were linked ahead of it, nothing is left there. No insertion at the
 * same time; walkers may go on. */
OMENDB_INTERNAL void graph_cut(struct graph *graph, uint32_t rows);

/* Makes sure that the base has a path from the entry to each of rows [0, indexed), all linked: the
 * few that lost their last incoming link are linked again. No insertion at the same time. Returns
 * OMENDB_OK, OMENDB_NOMEM, OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_INTERNAL int graph_repair(struct graph *graph, struct graph_scratch *scratch,
                                 uint32_t indexed);

/* Rows that are linked after all others: one of each `step` (at least 2) from `first` on, `count`
 * of them; count 0: none. Which of the step differs from one to the next, so that no order in which
 * rows were added is in step with them. */
struct graph_held {
    uint32_t first, step, count;
};

/* The held row number `index`. They ascend. */
static inline uint32_t graph_held_row(const struct graph_held *held, uint32_t index)
{
    uint32_t hash = index * UINT32_C(2654435769); /* multiples of the golden ratio spread evenly */
    return held->first + index * held->step + (uint32_t)(((uint64_t)hash * held->step) >> 32);
}

static inline int graph_is_held(const struct graph_held *held, uint32_t row)
{
    if (held->count == 0 || row < held->first)
        return 0;
    uint32_t index = (row - held->first) / held->step;
    return index < held->count && row == graph_held_row(held, index);
}

/* The row number `index` of those that are not held, ascending. */
static inline uint32_t graph_unheld_row(const struct graph_held *held, uint32_t index)
{
    if (held->count == 0 || index < held->first)
        return index;
    uint32_t step = (index - held->first) / (held->step - 1);
    if (step >= held->count)
        return index + held->count;
    uint32_t row = index + step;
    return row + (row >= graph_held_row(held, step));
}

/* graph_repair for all rows of [0, indexed) but the held ones, which are not linked yet. */
OMENDB_INTERNAL int graph_repair_unheld(struct graph *graph, struct graph_scratch *scratch,
                                        uint32_t indexed, const struct graph_held *held);

/* What walkers may use now: count, entry and stores are loaded in the order that makes every number
 * reachable from them safe. */
OMENDB_INTERNAL void graph_get_view(const struct graph *graph, struct graph_view *view);

/* The vectors of rows [first, last) will not be read again soon: of a file that is mapped they need
 * not stay resident. */
OMENDB_INTERNAL void graph_release_vectors(const struct graph_view *view, uint32_t first,
                                           uint32_t last);

/* Structural check of a view: every link < count, levels <= GRAPH_MAX_LEVEL, upper blocks in
 * bounds, entry valid, how many of rows [0, indexed) cannot be reached from the entry at the base.
 * Calls `report` for each kind of defect with a sentence. OMENDB_CORRUPT if there was one
 * other than rows that cannot be reached (which graph_repair rules out and concurrent insertion
 * does not). */
OMENDB_INTERNAL int graph_check(const struct graph_view *view, uint32_t indexed,
                                struct memory *memory,
                                void (*report)(void *context, const char *sentence), void *context);

#endif
