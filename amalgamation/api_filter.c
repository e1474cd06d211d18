/* api_filter.c: the public calls about filters. */
#include "api.h"
#include "filter.h"
#include "lifecycle.h"

#include <math.h>

/* Whoever reads beside writers that have filled the memory can filter; thousands of filters cannot
 * lie in what is kept for that. */
#define API_FILTERS_IN_RESERVE 8

static int api_compile(omendb *db, const char *text, omendb_filter **filter)
{
    const int few = atomic_load(&db->open_filters) < API_FILTERS_IN_RESERVE;
    if (few)
        memory_begin_reading();
    int code = filter_compile(&db->memory, text, filter);
    if (few)
        memory_end_reading();
    return code;
}

OMENDB_API int omendb_filter_compile(omendb *db, const char *text, omendb_filter **filter)
{
    if (filter == NULL)
        return api_null("filter");
    *filter = NULL;
    int code = api_database(db);
    if (code != OMENDB_OK)
        return code;
    if (text == NULL)
        return api_null("text");
    struct work_wait wait = {0};
    code = api_compile(db, text, filter);
    while (code == OMENDB_NOMEM && work_relieve(db, &wait))
        code = api_compile(db, text, filter);
    if (code != OMENDB_OK)
        return code;
    (*filter)->magic = FILTER_MAGIC;
    (*filter)->db = db;
    atomic_fetch_add(&db->children, 1);
    atomic_fetch_add(&db->open_filters, 1);
    return OMENDB_OK;
}

OMENDB_API void omendb_filter_free(omendb_filter *filter)
{
    if (filter == NULL || !handle_is(filter, FILTER_MAGIC) ||
        filter->db->process != platform_process())
        return;
    omendb *db = filter->db;
    filter->magic = 0;
    filter_free(filter);
    atomic_fetch_sub(&db->open_filters, 1);
    database_child_done(db);
}

static int api_open_filter(const omendb_filter *filter)
{
    if (filter == NULL)
        return api_null("filter");
    if (!handle_is(filter, FILTER_MAGIC))
        return error_set(OMENDB_MISUSE, "filter is not a compiled filter");
    return api_database(filter->db);
}

OMENDB_API int omendb_filter_parameter(const omendb_filter *filter, const char *name)
{
    if (api_open_filter(filter) != OMENDB_OK)
        return 0;
    if (name == NULL) {
        api_null("name");
        return 0;
    }
    return filter_parameter_index(filter, name);
}

OMENDB_API int omendb_filter_parameter_count(const omendb_filter *filter)
{
    return api_open_filter(filter) == OMENDB_OK ? (int)filter->parameter_count : 0;
}

/* A filter that may be bound now. */
static int api_binding(const omendb_filter *filter)
{
    int code = api_open_filter(filter);
    const uint32_t users = code == OMENDB_OK ? filter_users(filter) : 0;
    if (users != 0)
        return error_set(OMENDB_BUSY,
                         "%u open pages or cursors use the filter with the values that it has; "
                         "close them first, or compile another one",
                         users);
    return code;
}

static int api_bind(omendb_filter *filter, int index, const struct filter_operand *operand)
{
    struct work_wait wait = {0};
    int code = filter_bind(filter, index, operand);
    while (code == OMENDB_NOMEM && work_relieve(filter->db, &wait))
        code = filter_bind(filter, index, operand);
    return code;
}

OMENDB_API int omendb_filter_bind_null(omendb_filter *filter, int index)
{
    const struct filter_operand operand = {.value = {.type = DOCUMENT_NULL}};
    int code = api_binding(filter);
    return code == OMENDB_OK ? api_bind(filter, index, &operand) : code;
}

OMENDB_API int omendb_filter_bind_bool(omendb_filter *filter, int index, int value)
{
    const struct filter_operand operand = {
        .value = {.type = value != 0 ? DOCUMENT_TRUE : DOCUMENT_FALSE}};
    int code = api_binding(filter);
    return code == OMENDB_OK ? api_bind(filter, index, &operand) : code;
}

OMENDB_API int omendb_filter_bind_i64(omendb_filter *filter, int index, int64_t value)
{
    const struct filter_operand operand = {.value = {.type = DOCUMENT_INTEGER, .integer = value}};
    int code = api_binding(filter);
    return code == OMENDB_OK ? api_bind(filter, index, &operand) : code;
}

OMENDB_API int omendb_filter_bind_u64(omendb_filter *filter, int index, uint64_t value)
{
    const struct filter_operand operand = {.value = {.type = DOCUMENT_REAL, .real = (double)value},
                                           .beyond = value};
    if (value <= (uint64_t)INT64_MAX)
        return omendb_filter_bind_i64(filter, index, (int64_t)value);
    int code = api_binding(filter);
    return code == OMENDB_OK ? api_bind(filter, index, &operand) : code;
}

OMENDB_API int omendb_filter_bind_f64(omendb_filter *filter, int index, double value)
{
    const struct filter_operand operand = {.value = {.type = DOCUMENT_REAL, .real = value}};
    int code = api_binding(filter);
    if (code != OMENDB_OK)
        return code;
    if (!isfinite(value))
        return error_set(OMENDB_INVALID, "the value is %f; it must be finite", value);
    return api_bind(filter, index, &operand);
}

OMENDB_API int omendb_filter_bind_text(omendb_filter *filter, int index, const char *text)
{
    int code = api_binding(filter);
    if (code != OMENDB_OK)
        return code;
    if (text == NULL)
        return api_null("text");
    struct work_wait wait = {0};
    code = filter_bind_text(filter, index, text);
    while (code == OMENDB_NOMEM && work_relieve(filter->db, &wait))
        code = filter_bind_text(filter, index, text);
    return code;
}

OMENDB_API int omendb_filter_bind_texts(omendb_filter *filter, int index, const char *const *texts,
                                        size_t count)
{
    int code = api_binding(filter);
    if (code != OMENDB_OK)
        return code;
    if (texts == NULL && count != 0)
        return api_null("texts");
    struct work_wait wait = {0};
    code = filter_bind_texts(filter, index, texts, count);
    while (code == OMENDB_NOMEM && work_relieve(filter->db, &wait))
        code = filter_bind_texts(filter, index, texts, count);
    return code;
}

#undef API_FILTERS_IN_RESERVE
