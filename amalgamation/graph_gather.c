/* graph_gather.c: chosen rows of a view, copied to lie one after the other. Who compares the same
 * few rows with many queries then reads them as fast as memory streams, and mostly from a cache. */
#include "graph_internal.h"

#include <string.h>

OMENDB_INTERNAL void graph_gathered_destroy(struct graph_gathered *gathered)
{
    if (gathered->vectors != NULL)
        memory_free_aligned(gathered->memory, gathered->vectors, gathered->bytes);
    memory_free(gathered->memory, gathered->rows, gathered->places * sizeof *gathered->rows);
    *gathered = (struct graph_gathered){.memory = gathered->memory};
}

static int graph_gather_reserve(struct graph_gathered *gathered, size_t bytes, uint32_t count)
{
    if (bytes <= gathered->bytes && count <= gathered->places)
        return OMENDB_OK;
    graph_gathered_destroy(gathered);
    gathered->vectors = memory_alloc_aligned(gathered->memory, bytes);
    gathered->bytes = gathered->vectors == NULL ? 0 : bytes;
    gathered->rows = memory_array(gathered->memory, count, sizeof *gathered->rows);
    gathered->places = gathered->rows == NULL ? 0 : count;
    if (gathered->vectors != NULL && gathered->rows != NULL)
        return OMENDB_OK;
    graph_gathered_destroy(gathered);
    return OMENDB_NOMEM;
}

OMENDB_INTERNAL int graph_gather(struct graph_gathered *gathered, const struct graph_view *view,
                                 const uint64_t *chosen, uint32_t count)
{
    const size_t stride = view->vectors.stride;
    const int verifies = graph_view_verifies(view);
    gathered->count = 0;
    int code = graph_gather_reserve(gathered, memory_multiply(count, stride), count);
    uint32_t taken = 0;
    for (uint32_t word = 0; taken < count && code == OMENDB_OK; word++) {
        for (uint64_t left = chosen[word]; left != 0 && code == OMENDB_OK; left &= left - 1) {
            const uint32_t row = word * 64 + graph_lowest_bit(left);
            if (verifies)
                code = graph_view_touch_vector(view, row);
            if (code == OMENDB_OK)
                memcpy(gathered->vectors + taken * stride, rows_at(&view->vectors, row), stride);
            gathered->rows[taken++] = row;
        }
    }
    gathered->view = *view;
    gathered->view.vectors = (struct rows_view){&gathered->vectors, 31, UINT32_MAX >> 1, stride};
    gathered->view.file = NULL;
    gathered->view.count = count;
    gathered->count = code == OMENDB_OK ? count : 0;
    return code;
}

OMENDB_INTERNAL int graph_scan_gathered(const struct graph_gathered *gathered,
                                        struct graph_scratch *scratch, const void *query, size_t k,
                                        struct graph_hit *hits, size_t *count,
                                        struct graph_counters *counters)
{
    *count = 0;
    int code = graph_scan(&gathered->view, scratch, query, 0, gathered->count, k, NULL, hits, count,
                          counters);
    for (size_t i = 0; i < *count; i++)
        hits[i].row = gathered->rows[hits[i].row];
    return code;
}
