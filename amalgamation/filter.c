/* filter.c: filters from text to free; see filter.h. */
#include "filter_build.h"
#include "json.h"

#include <string.h>

static int filter_check_text(struct filter_builder *builder)
{
    if (builder->size > FILTER_TEXT_MAX)
        return error_set(OMENDB_TOOBIG, "filter: %zu bytes; at most %u are allowed", builder->size,
                         (unsigned)FILTER_TEXT_MAX);
    const size_t valid = json_utf8_bytes((const uint8_t *)builder->text, builder->size);
    if (valid < builder->size) {
        builder->size = valid;
        return filter_fail(builder, OMENDB_INVALID, valid, "not UTF-8");
    }
    return OMENDB_OK;
}

static int filter_read(struct filter_builder *builder)
{
    omendb_filter *filter = builder->filter;
    int code = filter_check_text(builder);
    if (code != OMENDB_OK)
        return code;
    filter->byte_capacity = builder->size;
    filter->bytes = memory_alloc(filter->memory, filter->byte_capacity);
    if (filter->bytes == NULL)
        return OMENDB_NOMEM;
    code = builder->text[strspn(builder->text, " \t\r\n")] == '{' ? filter_json(builder)
                                                                  : filter_parse(builder);
    if (code == OMENDB_OK)
        code = filter_build_end(builder);
    return code == OMENDB_OK ? filter_resolve(filter) : code;
}

/* The filter of each handle is the first member of one. */
static struct filter_held *filter_held_of(const omendb_filter *filter)
{
    return (struct filter_held *)(uintptr_t)filter;
}

OMENDB_INTERNAL const omendb_filter *filter_hold(const omendb_filter *filter)
{
    if (filter != NULL)
        atomic_fetch_add_explicit(&filter_held_of(filter)->holders, 1, memory_order_relaxed);
    return filter;
}

OMENDB_INTERNAL uint32_t filter_users(const omendb_filter *filter)
{
    return atomic_load_explicit(&filter_held_of(filter)->holders, memory_order_acquire) - 1;
}

static void filter_destroy(struct filter_held *held)
{
    omendb_filter *filter = &held->filter;
    struct memory *memory = filter->memory;
    for (size_t i = 0; i < filter->leaf_count; i++)
        filter_free_set(memory, &filter->leaves[i].set);
    for (size_t i = 0; i < filter->parameter_count; i++)
        memory_free(memory, filter->parameters[i].block, filter->parameters[i].block_size);
    memory_free(memory, filter->leaves, filter->leaf_capacity * sizeof *filter->leaves);
    memory_free(memory, filter->nodes, filter->node_capacity * sizeof *filter->nodes);
    memory_free(memory, filter->operands, filter->operand_capacity * sizeof *filter->operands);
    memory_free(memory, filter->parameters,
                filter->parameter_capacity * sizeof *filter->parameters);
    memory_free(memory, filter->bytes, filter->byte_capacity);
    memory_free(memory, held, sizeof *held);
}

OMENDB_INTERNAL void filter_free(const omendb_filter *filter)
{
    if (filter != NULL &&
        atomic_fetch_sub_explicit(&filter_held_of(filter)->holders, 1, memory_order_acq_rel) == 1)
        filter_destroy(filter_held_of(filter));
}

OMENDB_INTERNAL int filter_compile(struct memory *memory, const char *text, omendb_filter **filter)
{
    struct filter_held *held = memory_zalloc(memory, sizeof *held);
    *filter = NULL;
    if (held == NULL)
        return OMENDB_NOMEM;
    atomic_init(&held->holders, 1);
    *filter = &held->filter;
    (*filter)->memory = memory;
    struct filter_builder builder = {.filter = *filter, .text = text, .size = strlen(text)};
    int code = filter_read(&builder);
    if (code != OMENDB_OK) {
        filter_free(*filter);
        *filter = NULL;
    }
    return code;
}

OMENDB_INTERNAL int filter_parameter_index(const omendb_filter *filter, const char *name)
{
    name += *name == ':';
    const size_t size = strlen(name);
    for (size_t i = 0; i < filter->parameter_count; i++)
        if (filter->parameters[i].name != NULL && filter->parameters[i].name_size == size &&
            memcmp(filter->parameters[i].name, name, size) == 0)
            return (int)i + 1;
    return 0;
}
