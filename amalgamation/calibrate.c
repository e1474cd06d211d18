/* calibrate.c: measuring recall by effort. calibration.c has the curves.
 *
 * In a merge. Rows that are in a graph are found too easily by their own vectors, as links lead to
 * them: on SIFT an ef at which unseen queries find 0.953 finds 0.995 for stored rows. So a merge
 * holds some of the rows that it inserts back, spread over all of them, asks for their neighbours
 * while they are not in the graph, and inserts them last. The truth is a scan of all other rows in
 * windows that fit the cache. The walks are those of searches.
 *
 * Cost. The scan takes one distance a row and query, inserting a row some thousand: 500 queries are
 * a few percent of building the graph. A merge that inserts few rows into a large graph asks fewer.
 * Walks go up each ladder, by ef and by stretch, until next to nothing is missed. For k = 100 a
 * quarter of the queries is enough: of a hundred neighbours the found share varies less from query
 * to query.
 *
 * omendb_calibrate asks the caller's queries, by complete searches of the newest state.
 *
 * Rejected: truth from a walk with a large ef (what no walk finds would not count as missed);
 * queries made by mixing two rows (they lie inside of the data, and are easier than real ones). */
#include "database.h"

#include <math.h>
#include <string.h>

#define CALIBRATE_QUERIES 500 /* at most, in a merge */
#define CALIBRATE_LEAST   200 /* with fewer the bound would say little */
#define CALIBRATE_SHARE   20  /* of the rows inserted at most one in so many is asked */
#define CALIBRATE_BLOCK   16  /* queries that share a scan */
#define CALIBRATE_RUN     32  /* rows compared at a time */
#define CALIBRATE_GRAIN   4   /* queries a parallel step of walks */
#define CALIBRATE_SKIP    4   /* for the largest k one query in so many is asked */
#define CALIBRATE_CHUNK   64  /* queries between looks at `progress` or `stopping` */
#define CALIBRATE_WINDOW                                                                           \
    (UINT32_C(4) << 20) /* bytes of rows that all queries are compared with                        \
                         */

/* A distance that was computed by another kernel may differ in the last bits. */
static float calibrate_bound(float distance)
{
    return distance + fabsf(distance) * 1e-5f;
}

/* Distances of a query. */
static uint32_t calibrate_cost(uint64_t distances, uint32_t queries)
{
    uint64_t cost = (distances + queries / 2) / (queries == 0 ? 1 : queries);
    return cost == 0 ? 1 : cost < UINT32_MAX ? (uint32_t)cost : UINT32_MAX;
}

/* ------------------------------------------------------------------ held rows of a merge */

struct calibrate_task {
    omendb *db;
    struct collection *collection;
    const struct search_target *target;
    const struct graph_held *held;
    uint32_t rows;
    uint32_t first, last; /* of the rows or of the queries that are under way */
    struct calibration_entry rung;
    uint32_t skip, count; /* of this rung: one held row in `skip` is asked */
    float *truth;         /* of each query: the CALIBRATION_LARGEST_K least distances, ascending */
    float *recalls;
    _Atomic uint64_t distances; /* computed by walks of this rung; relaxed: read after the job */
};

OMENDB_INTERNAL void calibrate_choose(uint32_t first, uint32_t rows, struct graph_held *held)
{
    uint32_t inserted = rows - first;
    uint64_t count = (uint64_t)CALIBRATE_QUERIES * inserted / (rows == 0 ? 1 : rows);
    count = count > CALIBRATE_LEAST ? count : CALIBRATE_LEAST;
    count = count < inserted / CALIBRATE_SHARE ? count : inserted / CALIBRATE_SHARE;
    *held = (struct graph_held){first, 0, 0};
    if (count < CALIBRATE_LEAST)
        return;
    held->count = (uint32_t)count;
    held->step = inserted / held->count;
}

static const uint8_t *calibrate_query(const struct calibrate_task *task, uint32_t index)
{
    return rows_at(&task->target->full.vectors, graph_held_row(task->held, index));
}

/* `nearest` ascends and is full of infinities at first. */
static void calibrate_keep(float *nearest, float distance)
{
    size_t at = CALIBRATION_LARGEST_K - 1;
    for (; at > 0 && nearest[at - 1] > distance; at--)
        nearest[at] = nearest[at - 1];
    nearest[at] = distance;
}

static void calibrate_scan_run(const struct calibrate_task *task, uint32_t first_query,
                               uint32_t last_query, const void *const *vectors, size_t count)
{
    const struct graph_view *view = &task->target->full;
    float distances[CALIBRATE_RUN];
    for (uint32_t query = first_query; query < last_query; query++) {
        float *nearest = task->truth + (size_t)query * CALIBRATION_LARGEST_K;
        view->kernel->many(calibrate_query(task, query), vectors, count, view->dim, distances);
        for (size_t i = 0; i < count; i++) {
            if (distances[i] < nearest[CALIBRATION_LARGEST_K - 1])
                calibrate_keep(nearest, distances[i]);
        }
    }
}

/* Inner products have no zero that a stretch could count from (struct graph_effort). */
static int calibrate_by_stretch(const struct collection *collection)
{
    return collection->schema.metric != OMENDB_INNER_PRODUCT;
}

static int calibrate_is_stopped(const struct calibrate_task *task)
{
    return atomic_load(&task->db->stopping) ? error_set(OMENDB_DONE, "the database is closing")
                                            : OMENDB_OK;
}

/* One block of queries against the rows of the window. */
static int calibrate_scan(void *context, uint64_t index)
{
    const struct calibrate_task *task = context;
    uint32_t first = (uint32_t)index * CALIBRATE_BLOCK, count = task->held->count;
    uint32_t last = count - first < CALIBRATE_BLOCK ? count : first + CALIBRATE_BLOCK;
    const void *vectors[CALIBRATE_RUN];
    for (uint32_t row = task->first; row < task->last;) {
        size_t run = 0;
        uint32_t end = task->last - row < CALIBRATE_RUN ? task->last : row + CALIBRATE_RUN;
        for (; row < end; row++) {
            if (!graph_is_held(task->held, row))
                vectors[run++] = rows_at(&task->target->full.vectors, row);
        }
        calibrate_scan_run(task, first, last, vectors, run);
    }
    return OMENDB_OK;
}

/* The truth of all queries, window after window, so that rows are in the cache for all of them. */
static int calibrate_find_truth(struct calibrate_task *task)
{
    uint32_t window = (uint32_t)(CALIBRATE_WINDOW / task->target->full.vectors.stride) + 1;
    uint64_t blocks = (task->held->count + CALIBRATE_BLOCK - 1) / CALIBRATE_BLOCK;
    int code = OMENDB_OK;
    for (size_t i = 0; i < (size_t)task->held->count * CALIBRATION_LARGEST_K; i++)
        task->truth[i] = INFINITY;
    for (task->first = 0; task->first < task->rows && code == OMENDB_OK; task->first = task->last) {
        uint32_t left = task->rows - task->first;
        task->last = task->first + (left < window ? left : window);
        code = calibrate_is_stopped(task);
        if (code == OMENDB_OK)
            code = work_parallel(task->db, blocks, calibrate_scan, task);
        graph_release_vectors(&task->target->full, task->first, task->last);
    }
    return code;
}

/* How many of the k nearest were found. */
static float calibrate_score(const struct graph_hit *hits, size_t count, const float *nearest,
                             size_t k)
{
    float bound = calibrate_bound(nearest[k - 1]);
    size_t found = 0;
    for (size_t i = 0; i < count && i < k; i++)
        found += hits[i].distance <= bound;
    return (float)found / (float)k;
}

static int calibrate_walk_one(struct calibrate_task *task, uint32_t index, struct scratch *scratch)
{
    const struct graph_effort effort = {
        .ef = task->rung.ef, .k = task->rung.k, .stretch = task->rung.stretch};
    struct graph_counters counters = {0, 0};
    uint32_t query = index * task->skip;
    size_t hits;
    int code = search_walk_target(task->collection, task->target, calibrate_query(task, query),
                                  scratch, &effort, &hits, &counters);
    if (code == OMENDB_OK)
        task->recalls[index] = calibrate_score(
            scratch->hits, hits, task->truth + (size_t)query * CALIBRATION_LARGEST_K, effort.k);
    atomic_fetch_add_explicit(&task->distances, counters.distances, memory_order_relaxed);
    return code;
}

/* The walks of a few queries with one effort. */
static int calibrate_walk(void *context, uint64_t index)
{
    struct calibrate_task *task = context;
    uint32_t first = task->first + (uint32_t)index * CALIBRATE_GRAIN;
    uint32_t last = task->last - first < CALIBRATE_GRAIN ? task->last : first + CALIBRATE_GRAIN;
    struct scratch *scratch = scratch_take(task->db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    int code = scratch_reserve(scratch, task->rung.ef + 1, 0, 0, 0);
    for (uint32_t i = first; i < last && code == OMENDB_OK; i++)
        code = calibrate_walk_one(task, i, scratch);
    scratch_give(task->db, scratch);
    return code;
}

/* All walks of a rung. */
static int calibrate_climb(struct calibrate_task *task)
{
    int code = OMENDB_OK;
    atomic_store(&task->distances, 0);
    for (task->first = 0; task->first < task->count && code == OMENDB_OK;
         task->first = task->last) {
        uint32_t left = task->count - task->first;
        task->last = task->first + (left < CALIBRATE_CHUNK ? left : CALIBRATE_CHUNK);
        code = calibrate_is_stopped(task);
        if (code == OMENDB_OK)
            code = work_parallel(task->db,
                                 (task->last - task->first + CALIBRATE_GRAIN - 1) / CALIBRATE_GRAIN,
                                 calibrate_walk, task);
        graph_release_vectors(&task->target->full, 0, task->rows);
    }
    task->rung.cost = calibrate_cost(atomic_load(&task->distances), task->count);
    return code;
}

OMENDB_INTERNAL int calibrate_held_rows(struct collection *collection,
                                        const struct search_target *target, uint32_t rows,
                                        const struct graph_held *held,
                                        struct calibration *calibration)
{
    omendb *db = collection->db;
    struct calibrate_task task = {
        .db = db, .collection = collection, .target = target, .held = held, .rows = rows};
    size_t floats = (size_t)held->count * (CALIBRATION_LARGEST_K + 1);
    *calibration = (struct calibration){.rows = rows};
    task.truth = memory_array(&db->memory, floats, sizeof *task.truth);
    if (task.truth == NULL)
        return OMENDB_OK;
    task.recalls = task.truth + (size_t)held->count * CALIBRATION_LARGEST_K;
    int code = calibrate_find_truth(&task);
    int by_stretch = calibrate_by_stretch(collection);
    for (size_t i = 0;
         code == OMENDB_OK && calibration_rung(calibration, i, by_stretch, &task.rung); i++) {
        if (calibration_is_enough(calibration, &task.rung))
            continue;
        task.skip = task.rung.k == CALIBRATION_LARGEST_K ? CALIBRATE_SKIP : 1;
        task.count = held->count / task.skip;
        code = calibrate_climb(&task);
        if (code == OMENDB_OK)
            calibration_add(calibration, &task.rung, task.recalls, task.count);
    }
    memory_free(&db->memory, task.truth, floats * sizeof *task.truth);
    if (code == OMENDB_NOMEM) { /* part of a curve would be taken for all that can be found */
        calibration->count = 0;
        code = OMENDB_OK;
    }
    return code;
}

/* ------------------------------------------------------------------ the caller's queries */

struct calibrate_asked {
    struct search_request request; /* but for the vector */
    const uint8_t *queries;
    uint32_t count;
    uint32_t first;        /* of the chunk under way */
    uint32_t largest_rows; /* of a graph */
    struct calibration_entry rung;
    float *truth; /* CALIBRATION_LARGEST_K a query, ascending; infinities where there are fewer */
    float *recalls;
    uint32_t *walked;           /* of each query: whether the largest graph was walked */
    _Atomic uint64_t distances; /* computed for this rung; relaxed: read after the job */
    struct calibration curve;
    int (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
    uint64_t done, total;
};

/* The k of the rung by its effort, or exactly. */
static int calibrate_ask(const struct calibrate_asked *asked, uint32_t query, int exact,
                         float *distances, size_t *found, omendb_explain *explain)
{
    uint64_t ids[CALIBRATION_LARGEST_K];
    struct search_request request = asked->request;
    struct collection *collection = request.collection;
    struct scratch *scratch = scratch_take(collection->db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    request.vector = asked->queries + (size_t)query * collection->vector_bytes;
    request.k = exact ? CALIBRATION_LARGEST_K : asked->rung.k;
    request.ef = exact ? CALIBRATION_LARGEST_K : asked->rung.ef;
    request.stretch = exact ? 0.0f : asked->rung.stretch;
    request.exact = exact;
    int code = search_run(&request, scratch, ids, distances, found, explain);
    scratch_give(collection->db, scratch);
    return code;
}

static int calibrate_ask_exactly(void *context, uint64_t index)
{
    struct calibrate_asked *asked = context;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint32_t query = asked->first + (uint32_t)index;
    float *nearest = asked->truth + (size_t)query * CALIBRATION_LARGEST_K;
    size_t found;
    int code = calibrate_ask(asked, query, 1, nearest, &found, &explain);
    for (size_t i = found; code == OMENDB_OK && i < CALIBRATION_LARGEST_K; i++)
        nearest[i] = INFINITY;
    return code;
}

static int calibrate_ask_rung(void *context, uint64_t index)
{
    struct calibrate_asked *asked = context;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint32_t query = asked->first + (uint32_t)index;
    const float *nearest = asked->truth + (size_t)query * CALIBRATION_LARGEST_K;
    float distances[CALIBRATION_LARGEST_K];
    size_t found, k = asked->rung.k, good = 0, there = 0;
    int code = calibrate_ask(asked, query, 0, distances, &found, &explain);
    if (code != OMENDB_OK)
        return code;
    while (there < k && nearest[there] < INFINITY)
        there++;
    float bound = there == 0 ? 0.0f : calibrate_bound(nearest[there - 1]);
    for (size_t i = 0; i < found && i < there; i++)
        good += distances[i] <= bound;
    asked->recalls[query] = there == 0 ? 1.0f : (float)good / (float)there;
    asked->walked[query] = explain.graph_rows >= asked->largest_rows;
    /* Of the walks alone. */
    if (explain.distances > explain.scanned_rows)
        atomic_fetch_add_explicit(&asked->distances, explain.distances - explain.scanned_rows,
                                  memory_order_relaxed);
    return OMENDB_OK;
}

/* All queries, in chunks, with a look at `progress` after each. */
static int calibrate_ask_all(struct calibrate_asked *asked,
                             int (*ask)(void *context, uint64_t index))
{
    omendb *db = asked->request.collection->db;
    int code = OMENDB_OK;
    for (asked->first = 0; asked->first < asked->count && code == OMENDB_OK;
         asked->first += CALIBRATE_CHUNK) {
        uint32_t left = asked->count - asked->first;
        code = work_parallel(db, left < CALIBRATE_CHUNK ? left : CALIBRATE_CHUNK, ask, asked);
        asked->done++;
        if (code == OMENDB_OK && asked->progress != NULL &&
            asked->progress(asked->context, asked->done, asked->total) != 0)
            code = error_set(OMENDB_DONE, "stopped by the progress function");
    }
    return code;
}

/* Whether the graph that matters was walked for every query, not scanned: only then has the effort
 * been measured. */
static int calibrate_was_walked(const struct calibrate_asked *asked)
{
    for (uint32_t i = 0; i < asked->count; i++) {
        if (!asked->walked[i])
            return 0;
    }
    return 1;
}

static int calibrate_measure(struct calibrate_asked *asked)
{
    uint64_t chunks = (asked->count + CALIBRATE_CHUNK - 1) / CALIBRATE_CHUNK, rungs = 0;
    int by_stretch = calibrate_by_stretch(asked->request.collection);
    struct calibration_entry scanned = {0}; /* too small to be walked for these k so widely */
    while (calibration_rung(&asked->curve, (size_t)rungs, by_stretch, &asked->rung))
        rungs++;
    asked->total = chunks * (rungs + 1);
    int code = calibrate_ask_all(asked, calibrate_ask_exactly);
    for (size_t i = 0;
         code == OMENDB_OK && calibration_rung(&asked->curve, i, by_stretch, &asked->rung); i++) {
        if (calibration_is_one_group(&scanned, &asked->rung) ||
            calibration_is_enough(&asked->curve, &asked->rung)) {
            asked->done += chunks;
            continue;
        }
        atomic_store(&asked->distances, 0);
        code = calibrate_ask_all(asked, calibrate_ask_rung);
        asked->rung.cost = calibrate_cost(atomic_load(&asked->distances), asked->count);
        if (code == OMENDB_OK && calibrate_was_walked(asked))
            calibration_add(&asked->curve, &asked->rung, asked->recalls, asked->count);
        else
            scanned = asked->rung;
    }
    return code;
}

static void calibrate_begin(struct calibrate_asked *asked, const struct version *version)
{
    for (uint32_t i = 0; i < version->segment_count; i++) {
        uint32_t rows = version->segments[i]->info.indexed_rows;
        asked->largest_rows = rows > asked->largest_rows ? rows : asked->largest_rows;
    }
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        uint32_t rows = atomic_load(&version->memtables[i]->indexed);
        asked->largest_rows = rows > asked->largest_rows ? rows : asked->largest_rows;
    }
    uint64_t largest;
    asked->curve = (struct calibration){.rows = asked->largest_rows,
                                        .all_rows = search_total_rows(version, &largest)};
}

/* Puts a curve in front of the others and publishes it. When that fails the curve is in force all
 * the same, and the next checkpoint stores it. */
static int calibrate_install(struct collection *collection, const struct calibration *curve)
{
    omendb *db = collection->db;
    struct calibration *made = memory_alloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    *made = *curve;
    /* What is published again below is what the last manifest lists. */
    int code = work_checkpoint(db, 1);
    if (code == OMENDB_OK && atomic_load(&collection->dropped))
        code = error_set(OMENDB_DROPPED, "collection \"%s\" was dropped", collection->name);
    platform_mutex_lock(&db->maintenance_mutex);
    if (code == OMENDB_OK) {
        made->older = atomic_load(&collection->calibration);
        atomic_store_explicit(&collection->calibration, made, memory_order_release);
        memory_begin_maintenance();
        code = checkpoint_republish(db);
        memory_end_maintenance();
    } else {
        memory_free(&db->memory, made, sizeof *made);
    }
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

OMENDB_INTERNAL int
calibrate_collection(struct collection *collection, const uint8_t *queries, uint32_t count,
                     int (*progress)(void *context, uint64_t done, uint64_t total), void *context)
{
    struct memory *memory = &collection->db->memory;
    struct calibrate_asked asked = {
        .queries = queries, .count = count, .progress = progress, .context = context};
    struct version *version = version_acquire_newest(collection, &asked.request.commit);
    asked.request.collection = collection;
    asked.request.version = version;
    asked.request.excluded_id = OMENDB_ID_AUTO;
    asked.truth =
        memory_array(memory, memory_multiply(count, CALIBRATION_LARGEST_K), sizeof *asked.truth);
    asked.recalls = memory_array(memory, count, sizeof *asked.recalls);
    asked.walked = memory_array(memory, count, sizeof *asked.walked);
    calibrate_begin(&asked, version);
    int code = asked.truth == NULL || asked.recalls == NULL || asked.walked == NULL ? OMENDB_NOMEM
                                                                                    : OMENDB_OK;
    if (code == OMENDB_OK && asked.largest_rows != 0)
        code = calibrate_measure(&asked);
    version_release(version);
    memory_free(memory, asked.truth, (size_t)count * CALIBRATION_LARGEST_K * sizeof *asked.truth);
    memory_free(memory, asked.recalls, count * sizeof *asked.recalls);
    memory_free(memory, asked.walked, count * sizeof *asked.walked);
    if (code == OMENDB_OK && asked.curve.count != 0)
        code = calibrate_install(collection, &asked.curve);
    return code == OMENDB_DONE ? OMENDB_OK : code;
}

#undef CALIBRATE_QUERIES
#undef CALIBRATE_LEAST
#undef CALIBRATE_SHARE
#undef CALIBRATE_BLOCK
#undef CALIBRATE_RUN
#undef CALIBRATE_GRAIN
#undef CALIBRATE_SKIP
#undef CALIBRATE_CHUNK
#undef CALIBRATE_WINDOW
