/* graph_bulk_internal.h: what the files of bulk building share: the graph that is being built, its
 * members, distances between them, and steps that run in parallel with working memory of their own.
 *
 * A member is a row that is to be linked: all but the held ones. Arrays by member have a place for
 * every row, so that rows serve as indexes. */
#ifndef OMENDB_GRAPH_BULK_INTERNAL_H
#define OMENDB_GRAPH_BULK_INTERNAL_H

#include "graph_bulk.h"
#include "graph_internal.h"

#define BULK_LEAF       1024 /* members of a leaf at most, and of a graph that is one */
#define BULK_REPLICAS   3    /* splittings into leaves */
#define BULK_EXPAND     12   /* neighbours whose lists are looked through */
#define BULK_OFFERS     128  /* of those who chose a member, how many it looks at */
#define BULK_GRAIN      256  /* members of a step */
#define BULK_TILE       256  /* vectors that many are compared with at a time, at most */
#define BULK_MASK_GROUP 16   /* entries whose bounds are compared at a time */
#define BULK_GOLDEN     UINT32_C(2654435769)

/* Working memory of one step. */
struct bulk_work {
    struct bulk_work *next;
    struct graph_scratch *scratch; /* for insertion; NULL until needed */
    void *block;                   /* the arrays below */
    size_t bytes;
    uint64_t *keys;       /* room */
    const void **vectors; /* room, or a leaf */
    float *distances;     /* room, or a tile */

    /* of a leaf: for each of its BULK_LEAF entries */
    uint64_t *lists; /* keys, `places` each */
    uint32_t *lengths;
    float *worst;     /* the distance that a key must not exceed to enter the list */
    uint32_t *uppers; /* the members with links above */
    const void **upper_vectors;
    uint32_t upper_count;

    /* of choosing the links of a member */
    uint32_t *found; /* room */
    uint32_t *hash;  /* hash_mask + 1 */
    uint32_t hash_mask;
    uint32_t found_count;
    uint32_t far_count;
    uint64_t *far_keys; /* 2 * places + 1 */
    uint32_t *chosen;   /* places */
    const void **chosen_vectors;
};

struct bulk {
    struct graph *graph;
    struct memory *memory;
    const struct graph_bulk_terms *terms;
    struct graph_view view;
    float *heights;  /* under inner product, by row; else NULL */
    float radius;    /* square of the greatest norm */
    uint32_t count;  /* members */
    uint32_t places; /* of a list */
    uint32_t room;   /* for candidates of one member */
    int is_finished; /* lists are chosen ones, not the nearest */
    uint64_t done, total;
    struct platform_mutex mutex; /* guards `works` */
    struct bulk_work *works;     /* not in use */

    /* of balls_find_nearest; NULL: never called */
    uint32_t *uppers; /* the nearest other member that has links above; GRAPH_NO_ROW */
    uint32_t *order;  /* members of a leaf side by side, for the cache */
};

/* Members */

static inline const void *bulk_vector(const struct bulk *bulk, uint32_t row)
{
    return rows_at(&bulk->view.vectors, row);
}

static inline uint32_t *bulk_list(const struct bulk *bulk, uint32_t row)
{
    return (uint32_t *)(void *)rows_at(&bulk->view.links, row);
}

/* Members in the order in which they are worked on. */
static inline uint32_t bulk_member(const struct bulk *bulk, uint32_t at)
{
    return bulk->order != NULL ? bulk->order[at] : graph_unheld_row(&bulk->terms->held, at);
}

static inline int bulk_is_upper(const struct bulk *bulk, uint32_t member)
{
    return *rows_at(&bulk->view.levels, member) > 0;
}

/* Guards what several steps may write of a member. */
static inline struct platform_mutex *bulk_stripe(const struct bulk *bulk, uint32_t member)
{
    return &bulk->graph->stripes[(member * BULK_GOLDEN) >> 24 & (GRAPH_STRIPES - 1)];
}

/* Distances of a member from `count` others, given with their vectors. Under inner product they are
 * half of squared distances, too: of the vectors with one more element each, its height, that gives
 * all of them the greatest norm. What is nearest to a query by inner product is nearest to it there
 * (Bachrach et al., RecSys 2014). */
OMENDB_INTERNAL void bulk_distances(const struct bulk *bulk, uint32_t member,
                                    const uint32_t *others, const void *const *vectors,
                                    uint32_t count, float *distances);

/* The rule of the many small arrays: allocated and freed by count. */
OMENDB_INTERNAL void *bulk_array(const struct bulk *bulk, size_t count, size_t size);
OMENDB_INTERNAL void bulk_array_free(const struct bulk *bulk, void *array, size_t count,
                                     size_t size);

/* Steps in parallel: calls of the same run may be made at the same time, each with its own work. */

typedef int bulk_step(void *context, struct bulk_work *work, uint32_t index);

/* Runs `steps` steps, which are `worth` of the total. */
OMENDB_INTERNAL int bulk_run(struct bulk *bulk, uint32_t steps, uint32_t worth, bulk_step *step,
                             void *context);
OMENDB_INTERNAL void bulk_free_works(struct bulk *bulk);

/* Of a run over `count` members, BULK_GRAIN a step. */
static inline uint32_t bulk_steps(uint32_t count)
{
    return count / BULK_GRAIN + (count % BULK_GRAIN != 0);
}

/* The end of the step's members from its first, index * BULK_GRAIN. */
static inline uint32_t bulk_step_end(const struct bulk *bulk, uint32_t index)
{
    const uint32_t first = index * BULK_GRAIN;

    return bulk->count - first < BULK_GRAIN ? bulk->count : first + BULK_GRAIN;
}

/* Stages */

/* Leaves the nearest of each member in its base list and sets bulk->uppers and bulk->order, which
 * the caller frees, also after a failure. More than BULK_LEAF members. */
OMENDB_INTERNAL int balls_find_nearest(struct bulk *bulk);

/* Chooses the base list of each member among the neighbours of its neighbours, or among all members
 * where these are one leaf. */
OMENDB_INTERNAL int links_refine(struct bulk *bulk);

/* Lets each member choose again among its list and those who chose it. */
OMENDB_INTERNAL int links_accept(struct bulk *bulk);

#endif
