/* graph_core.c: see graph_core.h. */
#include "omendb.c"

#include "graph_core.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_THREADS 64

struct graph_core {
    struct memory memory;
    struct graph_core_settings settings;
    struct graph *graph;
    struct graph_scratch *scratch;
    struct graph_hit *hits;
    size_t hits_capacity;
    uint32_t rows;
    struct graph_counters counters;
};

struct core_worker {
    struct graph_core *core;
    _Atomic uint32_t *next;
    const struct graph_view *source; /* NULL: insert */
    const uint32_t *old_to_new;
    struct platform_thread thread;
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

static void *core_work(void *argument)
{
    struct core_worker *worker = argument;
    struct graph_core *core = worker->core;
    struct graph_scratch *scratch = graph_scratch_create(&core->memory);
    const uint32_t step = worker->source != NULL ? 1024 : 1;
    const uint32_t end = worker->source != NULL ? worker->source->count : core->rows;

    for (;;) {
        const uint32_t first = atomic_fetch_add(worker->next, step);
        if (first >= end) {
            break;
        }
        if (worker->source != NULL) {
            core_require(graph_adopt_rows(core->graph, worker->source, worker->old_to_new, scratch,
                                          first, end - first < step ? end : first + step));
        } else {
            core_require(graph_insert(core->graph, scratch, first));
        }
    }
    graph_scratch_destroy(scratch);
    return NULL;
}

static void core_run(struct graph_core *core, unsigned threads, const struct graph_view *source,
                     const uint32_t *old_to_new)
{
    struct core_worker workers[MAX_THREADS];
    _Atomic uint32_t next = 0;

    threads = threads < MAX_THREADS ? threads : MAX_THREADS;
    for (unsigned i = 0; i < threads; i++) {
        workers[i].core = core;
        workers[i].next = &next;
        workers[i].source = source;
        workers[i].old_to_new = old_to_new;
        core_require(platform_thread_start(&workers[i].thread, core_work, &workers[i]));
    }
    for (unsigned i = 0; i < threads; i++) {
        platform_thread_join(&workers[i].thread);
    }
}

static struct graph_core *core_create(const struct graph_core_settings *settings, uint32_t rows)
{
    struct graph_core *core = core_allocate(sizeof *core);
    struct graph_config config = {0};

    memory_init(&core->memory, NULL, 0);
    core->settings = *settings;
    core->rows = rows;
    config.M = settings->M;
    config.ef_construction = settings->ef_construction;
    config.seed = 42;
    config.dim = settings->dim;
    config.vector_bytes = settings->vector_bytes;
    config.kernel = kernels_for((omendb_scalar)settings->scalar, OMENDB_L2);
    core_require(graph_create(&core->memory, &config, NULL, NULL, 0, &core->graph));
    core->scratch = graph_scratch_create(&core->memory);
    return core;
}

struct graph_core *graph_core_build(const struct graph_core_settings *settings, const void *vectors,
                                    uint32_t rows, unsigned threads)
{
    struct graph_core *core = core_create(settings, rows);

    core_require(graph_reserve(core->graph, rows));
    for (uint32_t row = 0; row < rows; row++) {
        memcpy(graph_vector(core->graph, row),
               (const unsigned char *)vectors + row * settings->vector_bytes,
               settings->vector_bytes);
    }
    graph_set_count(core->graph, rows);
    core_run(core, threads, NULL, NULL);
    return core;
}

struct graph_core *graph_core_adopt(const struct graph_core *source, const unsigned char *keep,
                                    unsigned threads)
{
    uint32_t *old_to_new = core_allocate(source->rows * sizeof *old_to_new);
    struct graph_core *core;
    struct graph_view view;
    uint32_t kept = 0;

    for (uint32_t row = 0; row < source->rows; row++) {
        old_to_new[row] = keep[row] ? kept++ : GRAPH_NO_ROW;
    }
    core = core_create(&source->settings, kept);
    graph_get_view(source->graph, &view);
    core_require(graph_adopt_begin(core->graph, &view, old_to_new, kept));
    for (uint32_t row = 0; row < source->rows; row++) {
        if (keep[row]) {
            memcpy(graph_vector(core->graph, old_to_new[row]), rows_at(&view.vectors, row),
                   core->settings.vector_bytes);
        }
    }
    core_run(core, threads, &view, old_to_new);
    core_require(graph_adopt_end(core->graph));
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
    return core->memory.used;
}

static int core_visible(const void *context, uint32_t row)
{
    return ((const unsigned char *)context)[row] == 0;
}

size_t graph_core_search(struct graph_core *core, const void *query, size_t ef, size_t k,
                         float stretch, const unsigned char *hidden, uint32_t *rows)
{
    const struct graph_filter filter = {GRAPH_NO_ROW, GRAPH_NO_ROW, core_visible, hidden};
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

static void core_report(void *context, const char *sentence)
{
    (void)context;
    printf("check: %s\n", sentence);
}

void graph_core_check(const struct graph_core *core)
{
    struct memory memory;
    struct graph_view view;

    memory_init(&memory, NULL, 0);
    graph_get_view(core->graph, &view);
    (void)graph_check(&view, core->rows, &memory, core_report, NULL);
}
