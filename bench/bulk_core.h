/* bulk_core.h: graphs of three ways of building behind a plain C interface, because bench_bulk.cpp
 * is C++ (for hnswlib) and the graph is C11 with atomics inside omendb.c. */
#ifndef BULK_CORE_H
#define BULK_CORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct bulk_core;

enum bulk_core_way {
    BULK_CORE_INSERT, /* one by one */
    BULK_CORE_REFINE, /* one by one, then graph_refine */
    BULK_CORE_BULK
};

struct bulk_core_settings {
    uint32_t M;
    uint32_t ef_construction;
    int scalar; /* omendb_scalar; the rows are given in it */
    int metric; /* omendb_metric */
    size_t dim;
    size_t vector_bytes;
};

/* All functions end the program when a call of the graph fails. */
struct bulk_core *bulk_core_create(const struct bulk_core_settings *settings, const void *vectors,
                                   uint32_t rows);
/* Links all rows with `threads` (at most 64). */
void bulk_core_build(struct bulk_core *core, enum bulk_core_way way, unsigned threads);
void bulk_core_destroy(struct bulk_core *core);

/* Bytes at most held at one time beyond those of the finished graph. */
uint64_t bulk_core_extra_bytes(const struct bulk_core *core);

/* Mean number of links at the base; prints what graph_check says. */
double bulk_core_check(const struct bulk_core *core);

/* The nearest `k` of a walk with `ef`; returns how many. One thread at a time. */
size_t bulk_core_search(struct bulk_core *core, const void *query, size_t ef, size_t k,
                        uint32_t *rows);

/* Distances and expanded rows of all searches so far, since the last call. */
void bulk_core_counters(struct bulk_core *core, uint64_t *expanded, uint64_t *distances);

#ifdef __cplusplus
}
#endif

#endif
