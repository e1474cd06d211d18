/* bulk_core.c: see bulk_core.h. */
#include "omendb.c"

#include "bulk_core.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_THREADS 64

struct bulk_core {
    struct memory memory;
    struct graph *graph;
    struct graph_scratch *scratch;
    struct graph_hit *hits;
    size_t hits_capacity;
    uint32_t rows;
    unsigned threads;
    uint64_t finished_bytes;
    struct graph_counters counters;
};

/* A job of bulk_parallel, or (without a function) the insertion of `count` rows. */
struct core_job {
    struct bulk_core *core;
    uint64_t count;
    int (*fn)(void *context, uint64_t index);
    void *context;
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

static void *core_work(void *argument)
{
    struct core_job *job = argument;
    struct graph_scratch *scratch =
        job->fn == NULL ? graph_scratch_create(&job->core->memory) : NULL;

    for (uint64_t index; (index = atomic_fetch_add(&job->next, 1)) < job->count;) {
        const int code = job->fn != NULL ? job->fn(job->context, index)
                                         : graph_insert(job->core->graph, scratch, (uint32_t)index);
        if (code != OMENDB_OK) {
            atomic_store(&job->code, code);
        }
    }
    graph_scratch_destroy(scratch);
    return NULL;
}

static int core_parallel(void *runner, uint64_t count, int (*fn)(void *context, uint64_t index),
                         void *context)
{
    struct core_job job = {.core = runner, .count = count, .fn = fn, .context = context};
    struct platform_thread threads[MAX_THREADS];
    const unsigned others = job.core->threads - 1;

    for (unsigned i = 0; i < others; i++) {
        core_require(platform_thread_start(&threads[i], core_work, &job));
    }
    (void)core_work(&job);
    for (unsigned i = 0; i < others; i++) {
        platform_thread_join(&threads[i]);
    }
    return atomic_load(&job.code);
}

struct bulk_core *bulk_core_create(const struct bulk_core_settings *settings, const void *vectors,
                                   uint32_t rows)
{
    struct bulk_core *core = calloc(1, sizeof *core);
    struct graph_config config = {0};

    if (core == NULL) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    memory_init(&core->memory, NULL, 0);
    core->rows = rows;
    config.M = settings->M;
    config.ef_construction = settings->ef_construction;
    config.seed = 42;
    config.dim = settings->dim;
    config.vector_bytes = settings->vector_bytes;
    config.kernel = kernels_for((omendb_scalar)settings->scalar, (omendb_metric)settings->metric);
    core_require(graph_create(&core->memory, &config, NULL, NULL, 0, &core->graph));
    core->scratch = graph_scratch_create(&core->memory);
    core_require(graph_reserve(core->graph, rows));
    for (uint32_t row = 0; row < rows; row++) {
        memcpy(graph_vector(core->graph, row),
               (const unsigned char *)vectors + row * settings->vector_bytes,
               settings->vector_bytes);
    }
    graph_set_count(core->graph, rows);
    return core;
}

void bulk_core_build(struct bulk_core *core, enum bulk_core_way way, unsigned threads)
{
    const struct graph_bulk_terms terms = {.parallel = core_parallel, .runner = core};

    core->threads = threads < 1 ? 1 : threads < MAX_THREADS ? threads : MAX_THREADS;
    if (way == BULK_CORE_BULK) {
        core_require(graph_bulk(core->graph, &terms));
    } else {
        core_require(core_parallel(core, core->rows, NULL, NULL));
    }
    if (way == BULK_CORE_REFINE) {
        core_require(graph_refine(core->graph, &terms));
    }
    core->finished_bytes = core->memory.used;
}

void bulk_core_destroy(struct bulk_core *core)
{
    graph_scratch_destroy(core->scratch);
    graph_destroy(core->graph);
    free(core->hits);
    free(core);
}

uint64_t bulk_core_extra_bytes(const struct bulk_core *core)
{
    return core->memory.peak - core->finished_bytes;
}

static void core_report(void *context, const char *sentence)
{
    (void)context;
    printf("check: %s\n", sentence);
}

double bulk_core_check(const struct bulk_core *core)
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

size_t bulk_core_search(struct bulk_core *core, const void *query, size_t ef, size_t k,
                        uint32_t *rows)
{
    const struct graph_effort effort = {.ef = ef, .k = k};
    struct graph_view view;
    size_t count;

    if (ef > core->hits_capacity) {
        free(core->hits);
        core->hits = malloc(ef * sizeof *core->hits);
        core->hits_capacity = ef;
        if (core->hits == NULL) {
            fprintf(stderr, "no memory\n");
            exit(1);
        }
    }
    graph_get_view(core->graph, &view);
    core_require(graph_search(&view, core->scratch, query, &effort, NULL, core->hits, &count,
                              &core->counters));
    count = count < k ? count : k;
    for (size_t i = 0; i < count; i++) {
        rows[i] = core->hits[i].row;
    }
    return count;
}

void bulk_core_counters(struct bulk_core *core, uint64_t *expanded, uint64_t *distances)
{
    *expanded = core->counters.expanded;
    *distances = core->counters.distances;
    memset(&core->counters, 0, sizeof core->counters);
}
