/* graph_bulk.h: linking all rows of a fresh graph at once, from all pairs inside small parts of
 * them, in a third to a half of the time that one search for each row takes; and choosing the
 * links of a finished graph anew.
 *
 * When to use which. Bulk building costs about half of graph_insert a row, whatever was linked
 * before. So a merge in which half of the rows or more are new is built in bulk as a whole, and its
 * graph is the better one; with fewer new rows the largest input's graph is adopted and they are
 * inserted. */
#ifndef OMENDB_GRAPH_BULK_H
#define OMENDB_GRAPH_BULK_H

#include "graph.h"

/* How the work is spread and stopped. */
struct graph_bulk_terms {
    /* Calls fn(context, index) for each index below `count`, from any threads, and returns when all
     * calls have: OMENDB_OK, or what the first that failed returned, after which it may leave out
     * others. NULL: one after another in the calling thread, which gives the same graph for the
     * same seed and rows every time. */
    int (*parallel)(void *runner, uint64_t count, int (*fn)(void *context, uint64_t index),
                    void *context);
    void *runner;
    /* Called by the calling thread every few hundredths of a second of work, with how much of
     * `total` is done; anything but 0 stops the building. NULL: never called. */
    int (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
    struct graph_held held; /* not to be linked by graph_bulk */
};

/* Links rows [0, count), but for the held ones, of a graph in which no row is linked yet: after
 * graph_reserve and graph_set_count, with all vectors there. Every other row is then reachable, and
 * held ones can be inserted by graph_insert. No walkers before it is done: they would find next to
 * nothing. Needs beside the graph at most 6 * M + 60 bytes a row (156 for M = 16; about 105 on real
 * data) and 0.6 MiB a thread. Returns OMENDB_OK, OMENDB_DONE (stopped), OMENDB_NOMEM,
 * OMENDB_CORRUPT, OMENDB_IOERR; after anything but the first the graph is only good for
 * graph_destroy. */
OMENDB_INTERNAL int graph_bulk(struct graph *graph, const struct graph_bulk_terms *terms);

/* Chooses the base links of a graph, all of whose rows are linked, anew: each row's among its
 * neighbours and their neighbours, by the rule of graph_bulk. For graphs whose rows were inserted
 * one by one or adopted: walks to the same recall then compute about a tenth fewer distances.
 * Walkers may run; insertions may not. The same returns; a graph that is not finished can still be
 * walked, but rows may be out of reach until graph_repair. */
OMENDB_INTERNAL int graph_refine(struct graph *graph, const struct graph_bulk_terms *terms);

#endif
