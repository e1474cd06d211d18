/* graph_core.c: see graph_core.h. */
#include "omendb.c"

#include "graph_core.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_THREADS 64
#define ADOPTED     1024 /* rows taken over by one call */

struct graph_core {
    struct memory memory;
    struct graph_core_settings settings;
    struct graph *graph;
    struct graph_scratch *scratch;
    struct graph_hit *hits;
    size_t hits_capacity;
    uint32_t rows;
    unsigned threads;
    uint64_t finished_bytes;
    struct graph_counters counters;
};

/* Calls that threads share: of `fn` or, without one, insertions of rows or their adoption. */
struct core_job {
    struct graph_core *core;
    uint64_t count;
    int (*fn)(void *context, uint64_t index);
    void *context;
    const struct graph_view *source; /* NULL: insert */
    const uint32_t *old_to_new;
    _Atomic uint64_t next;
    _Atomic int code;
};

static void core_require(int code)
{
    if (code != OMENDB_OK) {
        fprintf(stderr, "%s\n", error_text());
        exit(1);
    }
}

static void *core_allocate(size_t size)
{
    void *block = calloc(1, size);

    if (block == NULL) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    return block;
}

static int core_call(const struct core_job *job, struct graph_scratch *scratch, uint64_t index)
{
    struct graph *graph = job->core->graph;
    uint32_t first, left;

    if (job->fn != NULL) {
        return job->fn(job->context, index);
    }
    if (job->source == NULL) {
        return graph_insert(graph, scratch, (uint32_t)index);
    }
    first = (uint32_t)index * ADOPTED;
    left = job->source->count - first;
    return graph_adopt_rows(graph, job->source, job->old_to_new, scratch, first,
                            first + (left < ADOPTED ? left : ADOPTED));
}

static void *core_work(void *argument)
{
    struct core_job *job = argument;
    struct graph_scratch *scratch =
        job->fn == NULL ? graph_scratch_create(&job->core->memory) : NULL;

    for (uint64_t index; (index = atomic_fetch_add(&job->next, 1)) < job->count;) {
        const int code = core_call(job, scratch, index);
        if (code != OMENDB_OK) {
            atomic_store(&job->code, code);
        }
    }
    graph_scratch_destroy(scratch);
    return NULL;
}

static int core_run(struct core_job *job)
{
    struct platform_thread threads[MAX_THREADS];
    const unsigned others = job->core->threads - 1;

    for (unsigned i = 0; i < others; i++) {
        core_require(platform_thread_start(&threads[i], core_work, job));
    }
    (void)core_work(job);
    for (unsigned i = 0; i < others; i++) {
        platform_thread_join(&threads[i]);
    }
    return atomic_load(&job->code);
}

static int core_parallel(void *runner, uint64_t count, int (*fn)(void *context, uint64_t index),
                         void *context)
{
    struct core_job job = {.core = runner, .count = count, .fn = fn, .context = context};

    return core_run(&job);
}

static struct graph_core *core_create(const struct graph_core_settings *settings, uint32_t rows,
                                      unsigned threads)
{
    struct graph_core *core = core_allocate(sizeof *core);
    struct graph_config config = {0};

    memory_init(&core->memory, NULL, 0);
    core->settings = *settings;
    core->rows = rows;
    core->threads = threads < 1 ? 1 : threads < MAX_THREADS ? threads : MAX_THREADS;
    config.M = settings->M;
    config.ef_construction = settings->ef_construction;
    config.seed = 42;
    config.dim = settings->dim;
    config.vector_bytes = settings->vector_bytes;
    config.kernel = kernels_for((omendb_scalar)settings->scalar, (omendb_metric)settings->metric);
    core_require(graph_create(&core->memory, &config, NULL, NULL, 0, &core->graph));
    core->scratch = graph_scratch_create(&core->memory);
    return core;
}

struct graph_core *graph_core_build(const struct graph_core_settings *settings, const void *vectors,
                                    uint32_t rows, enum graph_core_way way, unsigned threads)
{
    struct graph_core *core = core_create(settings, rows, threads);
    const struct graph_bulk_terms terms = {.parallel = core_parallel, .runner = core};
    struct core_job insertion = {.core = core, .count = rows};

    core_require(graph_reserve(core->graph, rows));
    for (uint32_t row = 0; row < rows; row++) {
        memcpy(graph_vector(core->graph, row),
               (const unsigned char *)vectors + row * settings->vector_bytes,
               settings->vector_bytes);
    }
    graph_set_count(core->graph, rows);
    core_require(way == GRAPH_CORE_BULK ? graph_bulk(core->graph, &terms) : core_run(&insertion));
    if (way == GRAPH_CORE_REFINE) {
        core_require(graph_refine(core->graph, &terms));
    }
    core->finished_bytes = core->memory.used;
    return core;
}

struct graph_core *graph_core_adopt(const struct graph_core *source, const unsigned char *keep,
                                    unsigned threads)
{
    uint32_t *old_to_new = core_allocate(source->rows * sizeof *old_to_new);
    struct core_job job = {.count = (source->rows + ADOPTED - 1) / ADOPTED,
                           .old_to_new = old_to_new};
    struct graph_core *core;
    struct graph_view view;
    uint32_t kept = 0;

    for (uint32_t row = 0; row < source->rows; row++) {
        old_to_new[row] = keep[row] ? kept++ : GRAPH_NO_ROW;
    }
    core = core_create(&source->settings, kept, threads);
    graph_get_view(source->graph, &view);
    core_require(graph_adopt_begin(core->graph, &view, old_to_new, kept));
    for (uint32_t row = 0; row < source->rows; row++) {
        if (keep[row]) {
            memcpy(graph_vector(core->graph, old_to_new[row]), rows_at(&view.vectors, row),
                   core->settings.vector_bytes);
        }
    }
    job.core = core;
    job.source = &view;
    core_require(core_run(&job));
    core_require(graph_adopt_end(core->graph));
    core->finished_bytes = core->memory.used;
    free(old_to_new);
    return core;
}

void graph_core_destroy(struct graph_core *core)
{
    graph_scratch_destroy(core->scratch);
    graph_destroy(core->graph);
    free(core->hits);
    free(core);
}

uint64_t graph_core_bytes(const struct graph_core *core)
{
    return core->finished_bytes;
}

uint64_t graph_core_extra_bytes(const struct graph_core *core)
{
    return core->memory.peak - core->finished_bytes;
}

static void core_report(void *context, const char *sentence)
{
    (void)context;
    printf("check: %s\n", sentence);
}

double graph_core_check(const struct graph_core *core)
{
    struct memory memory;
    struct graph_view view;
    uint64_t links = 0;

    memory_init(&memory, NULL, 0);
    graph_get_view(core->graph, &view);
    (void)graph_check(&view, core->rows, &memory, core_report, NULL);
    for (uint32_t row = 0; row < core->rows; row++) {
        const uint32_t *slots = (const uint32_t *)(const void *)rows_at(&view.links, row);
        for (uint32_t i = 0; i < view.links_per_row; i++) {
            links += slots[i] != row;
        }
    }
    return (double)links / core->rows;
}

static int core_visible(const void *context, uint32_t row)
{
    return ((const unsigned char *)context)[row] == 0;
}

size_t graph_core_search(struct graph_core *core, const void *query, size_t ef, size_t k,
                         float stretch, const unsigned char *hidden, uint32_t *rows)
{
    const struct graph_filter filter = {.row_limit = GRAPH_NO_ROW,
                                        .excluded_row = GRAPH_NO_ROW,
                                        .visible = core_visible,
                                        .context = hidden};
    const struct graph_effort effort = {.ef = ef, .k = k, .stretch = stretch};
    struct graph_view view;
    size_t count;

    if (ef > core->hits_capacity) {
        free(core->hits);
        core->hits = core_allocate(ef * sizeof *core->hits);
        core->hits_capacity = ef;
    }
    graph_get_view(core->graph, &view);
    core_require(graph_search(&view, core->scratch, query, &effort, hidden != NULL ? &filter : NULL,
                              core->hits, &count, &core->counters));
    count = count < k ? count : k;
    for (size_t i = 0; i < count; i++) {
        rows[i] = core->hits[i].row;
    }
    return count;
}

void graph_core_counters(struct graph_core *core, uint64_t *expanded, uint64_t *distances)
{
    *expanded = core->counters.expanded;
    *distances = core->counters.distances;
    memset(&core->counters, 0, sizeof core->counters);
}
