/* graph_core.h: the bare graph, built in three ways, behind a plain C interface, because
 * bench_graph.cpp is C++ (for hnswlib) and the graph is C11 with atomics inside omendb.c. */
#ifndef GRAPH_CORE_H
#define GRAPH_CORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct graph_core;

enum graph_core_way {
    GRAPH_CORE_INSERT, /* one by one */
    GRAPH_CORE_REFINE, /* one by one, then graph_refine */
    GRAPH_CORE_BULK
};

struct graph_core_settings {
    uint32_t M;
    uint32_t ef_construction;
    int scalar; /* omendb_scalar; the rows are given in it */
    int metric; /* omendb_metric */
    size_t dim;
    size_t vector_bytes;
};

/* All functions end the program when a call of the graph fails. threads: at most 64. */
struct graph_core *graph_core_build(const struct graph_core_settings *settings, const void *vectors,
                                    uint32_t rows, enum graph_core_way way, unsigned threads);
/* A graph of those of `core`'s rows whose keep[row] is not 0, taken over; order of rows kept. */
struct graph_core *graph_core_adopt(const struct graph_core *core, const unsigned char *keep,
                                    unsigned threads);
void graph_core_destroy(struct graph_core *core);

/* Of the finished graph, and what was held at most beyond that at one time. */
uint64_t graph_core_bytes(const struct graph_core *core);
uint64_t graph_core_extra_bytes(const struct graph_core *core);

/* Mean number of links at the base; prints what graph_check says. */
double graph_core_check(const struct graph_core *core);

/* The nearest `k` of a walk with `ef` and `stretch` (see struct graph_effort); returns how many.
 * `hidden`: rows with a byte that is not 0 are not returned; NULL: all are. One thread at a time.
 */
size_t graph_core_search(struct graph_core *core, const void *query, size_t ef, size_t k,
                         float stretch, const unsigned char *hidden, uint32_t *rows);

/* Distances and expanded rows of all searches so far, since the last call. */
void graph_core_counters(struct graph_core *core, uint64_t *expanded, uint64_t *distances);

#ifdef __cplusplus
}
#endif

#endif
