/* ids_core.c: see ids_core.h. */
#include "omendb.c"

#include "ids_core.h"

#include <stdio.h>
#include <stdlib.h>

struct ids_core {
    struct memory memory;
    struct idmodel model;
    const uint64_t *ids;
    uint8_t *bytes;
    size_t size;
};

struct ids_core *ids_core_build(const uint64_t *ids, uint32_t count)
{
    struct idmodel_builder builder;
    struct ids_core *core = calloc(1, sizeof *core);
    if (core == NULL)
        exit(1);
    memory_init(&core->memory, NULL, 0);
    core->ids = ids;
    idmodel_begin(&builder, &core->memory);
    for (uint32_t i = 0; i < count; i++)
        idmodel_add(&builder, ids[i]);
    core->bytes = idmodel_finish(&builder, &core->size);
    idmodel_end(&builder);
    if (core->bytes == NULL || !idmodel_open(&core->model, core->bytes, core->size, count)) {
        fprintf(stderr, "there is no model of %u ids\n", count);
        exit(1);
    }
    return core;
}

void ids_core_free(struct ids_core *core)
{
    memory_free(&core->memory, core->bytes, core->size);
    free(core);
}

uint32_t ids_core_pieces(const struct ids_core *core)
{
    return core->model.pieces;
}

size_t ids_core_bytes(const struct ids_core *core)
{
    return core->size;
}

static uint64_t ids_core_place(const struct ids_core *core, uint32_t first, uint64_t id)
{
    uint64_t place = first + idmodel_search(core->ids + first, id);
    return place < core->model.rows && core->ids[place] == id ? place : 0;
}

uint64_t ids_core_find(const struct ids_core *core, const uint64_t *wanted, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += ids_core_place(core, idmodel_window(&core->model, wanted[i]), wanted[i]);
    return sum;
}

uint64_t ids_core_find_batch(const struct ids_core *core, const uint64_t *wanted, size_t count)
{
    uint32_t first[VERSION_BATCH];
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i += VERSION_BATCH) {
        size_t some = count - i < VERSION_BATCH ? count - i : VERSION_BATCH;
        for (size_t j = 0; j < some; j++) {
            first[j] = idmodel_window(&core->model, wanted[i + j]);
            prefetch_bytes(core->ids + first[j], (IDMODEL_WINDOW + 1) * sizeof(uint64_t));
        }
        for (size_t j = 0; j < some; j++)
            sum += ids_core_place(core, first[j], wanted[i + j]);
    }
    return sum;
}
