/* filter_bind.c: from the operands of a leaf, with what its parameters are bound to, the set of
 * values that it compares with; filter.h says what must be in it. */
#include "error.h"
#include "filter.h"
#include "json.h"
#include "sort.h"

#include <math.h>
#include <string.h>

/* One set while it is made. */
struct bind_set {
    const omendb_filter *filter;
    const struct filter_leaf *leaf;
    struct filter_set *set;
    struct document_value *values;
    struct filter_range *ranges;
    struct filter_ids *ids;
    uint8_t *bytes; /* of prefixes */
};

/* What an operand is, or its parameter is bound to. */
static const struct filter_operand *bind_value(const omendb_filter *filter,
                                               const struct filter_operand *operand)
{
    return operand->parameter == 0 ? operand : &filter->parameters[operand->parameter - 1].bound;
}

static const struct filter_operand *bind_operand(const struct bind_set *made, size_t index)
{
    return bind_value(made->filter, &made->filter->operands[made->leaf->first_operand + index]);
}

static int bind_is_null(const struct filter_operand *operand)
{
    return operand->value.type == DOCUMENT_NULL;
}

/* ------------------------------------------------------------------ points and ranges */

/* The least id that is not below the bound, or above it; 0: there is none. bound NULL: none. */
static int bind_first_id(const struct filter_operand *bound, int above, uint64_t *id)
{
    *id = 0;
    if (bound == NULL || bound->value.type < DOCUMENT_INTEGER)
        return 1;
    if (bound->value.type > DOCUMENT_REAL)
        return 0;
    if (bound->beyond != 0 || bound->value.type == DOCUMENT_INTEGER) {
        if (bound->beyond == 0 && bound->value.integer < 0)
            return 1;
        *id = bound->beyond != 0 ? bound->beyond : (uint64_t)bound->value.integer;
        if (above && *id == UINT64_MAX)
            return 0;
        *id += (uint64_t)above;
        return 1;
    }
    const double least = ceil(bound->value.real);
    if (bound->value.real < 0)
        return 1;
    if (least >= 0x1p64)
        return 0;
    *id = (uint64_t)least + (above && least == bound->value.real);
    return 1;
}

static void bind_ids(struct bind_set *made, const struct filter_operand *low, int low_open,
                     const struct filter_operand *high, int high_open)
{
    uint64_t first, behind, last = UINT64_MAX;
    if (!bind_first_id(low, low_open, &first))
        return;
    if (high != NULL && bind_first_id(high, !high_open, &behind)) {
        if (behind == 0)
            return;
        last = behind - 1;
    }
    if (first <= last)
        made->ids[made->set->id_count++] = (struct filter_ids){first, last};
}

/* NULL: no bound. Where a bound of two is open, they differ. */
static void bind_range(struct bind_set *made, const struct filter_operand *low, int low_open,
                       const struct filter_operand *high, int high_open)
{
    struct filter_range range = {.low_open = (uint8_t)low_open, .high_open = (uint8_t)high_open};
    if (made->leaf->subject == FILTER_ID) {
        bind_ids(made, low, low_open, high, high_open);
        return;
    }
    if (low != NULL)
        range.low = low->value;
    if (high != NULL)
        range.high = high->value;
    if (low != NULL && high != NULL && document_compare(&low->value, &high->value) > 0)
        return;
    made->ranges[made->set->range_count++] = range;
}

static void bind_point(struct bind_set *made, const struct filter_operand *operand)
{
    if (made->leaf->subject == FILTER_ID)
        bind_ids(made, operand, 0, operand, 0);
    else
        made->values[made->set->value_count++] = operand->value;
}

/* The comparison is unknown for all values from low to high: its negation holds for none of them,
 * and it neither. */
static void bind_unknown(struct bind_set *made, const struct filter_operand *low,
                         const struct filter_operand *high)
{
    if (made->leaf->negated)
        bind_range(made, low, 0, high, 0);
}

static int bind_compare_ids(const void *left, const void *right)
{
    const struct filter_ids *a = left, *b = right;
    return (a->first > b->first) - (a->first < b->first);
}

static int bind_compare_values(const void *left, const void *right)
{
    return document_compare(left, right);
}

/* Sorted, without repetitions. */
static void bind_order(struct bind_set *made)
{
    struct filter_set *set = made->set;
    uint32_t kept = 0;
    if (set->value_count > 1)
        sort_array(made->values, set->value_count, sizeof *made->values, bind_compare_values);
    for (uint32_t i = 0; i < set->value_count; i++)
        if (i == 0 || document_compare(&made->values[kept - 1], &made->values[i]) != 0)
            made->values[kept++] = made->values[i];
    set->value_count = kept;
    kept = 0;
    if (set->id_count > 1)
        sort_array(made->ids, set->id_count, sizeof *made->ids, bind_compare_ids);
    for (uint32_t i = 0; i < set->id_count; i++) {
        struct filter_ids *last = kept == 0 ? NULL : &made->ids[kept - 1];
        if (last == NULL ||
            (made->ids[i].first > last->last && made->ids[i].first - 1 > last->last))
            made->ids[kept++] = made->ids[i];
        else if (made->ids[i].last > last->last)
            last->last = made->ids[i].last;
    }
    set->id_count = kept;
}

/* ------------------------------------------------------------------ operators */

static int bind_not_an_array(const struct bind_set *made, size_t index)
{
    const struct filter_operand *operand =
        &made->filter->operands[made->leaf->first_operand + index];
    if (bind_value(made->filter, operand)->value.type != DOCUMENT_TEXTS)
        return OMENDB_OK;
    return error_set(OMENDB_INVALID,
                     "filter: parameter %u would be an array, and something else than IN uses it",
                     (unsigned)operand->parameter);
}

static int bind_in(struct bind_set *made)
{
    const struct filter_leaf *leaf = made->leaf;
    int has_null = 0;
    size_t members = 0;
    for (size_t i = 0; i < leaf->operand_count; i++) {
        const struct filter_operand *operand = bind_operand(made, i);
        struct filter_operand text;
        uint32_t at = 0, size;
        const uint8_t *bytes;
        const int is_array = operand->value.type == DOCUMENT_TEXTS;
        members += is_array ? operand->value.count : 1;
        has_null = has_null || bind_is_null(operand);
        if (!is_array && !bind_is_null(operand))
            bind_point(made, operand);
        while (is_array && document_next_text(&operand->value, &at, &bytes, &size)) {
            filter_text_operand(bytes, size, &text);
            bind_point(made, &text);
        }
    }
    if (has_null && leaf->negated) {
        made->set->value_count = made->set->id_count = 0;
        bind_unknown(made, NULL, NULL);
    }
    made->set->null_matches = members == 0 && leaf->negated;
    return OMENDB_OK;
}

static int bind_between(struct bind_set *made)
{
    const struct filter_operand *low = bind_operand(made, 0), *high = bind_operand(made, 1);
    int code = bind_not_an_array(made, 0);
    if (code == OMENDB_OK)
        code = bind_not_an_array(made, 1);
    if (code != OMENDB_OK)
        return code;
    if (bind_is_null(low) || bind_is_null(high))
        bind_unknown(made, bind_is_null(low) ? NULL : low, bind_is_null(high) ? NULL : high);
    else
        bind_range(made, low, 0, high, 0);
    return OMENDB_OK;
}

OMENDB_INTERNAL const char *filter_pattern(const struct filter_leaf *leaf, const uint8_t *pattern,
                                           size_t size, uint8_t *prefix, size_t *prefix_size,
                                           int *is_whole)
{
    const size_t escape = leaf->escape_size;
    *prefix_size = 0;
    *is_whole = 1;
    for (size_t i = 0; i < size; i++) {
        if (escape != 0 && size - i >= escape && memcmp(pattern + i, leaf->escape, escape) == 0) {
            i += escape;
            if (i == size)
                return "the pattern ends with the character of ESCAPE";
        } else if (pattern[i] == '_') {
            return "LIKE has no '_' for any character; for '_' itself name a character by ESCAPE "
                   "and "
                   "write it before: LIKE 'a\\_b' ESCAPE '\\'";
        } else if (pattern[i] == '%') {
            *is_whole = 0;
            return i + 1 == size ? NULL
                                 : "LIKE has '%' at the end of a pattern only; for '%' itself name "
                                   "a character by ESCAPE and write it before: LIKE '5\\%' ESCAPE "
                                   "'\\'";
        }
        if (prefix != NULL)
            prefix[*prefix_size] = pattern[i];
        ++*prefix_size;
    }
    return NULL;
}

/* All texts that begin with the first `size` of made->bytes. Behind them is room for as many. */
static void bind_prefix(struct bind_set *made, size_t size)
{
    struct filter_operand low, high;
    uint8_t *next = made->bytes + size;
    size_t kept = size;
    memcpy(next, made->bytes, size);
    while (kept > 0 && next[kept - 1] == 0xFF)
        kept--;
    if (kept > 0)
        next[kept - 1]++;
    filter_text_operand(made->bytes, (uint32_t)size, &low);
    filter_text_operand(next, (uint32_t)kept, &high);
    bind_range(made, &low, 0, kept > 0 ? &high : NULL, 1);
}

static int bind_like(struct bind_set *made)
{
    const struct filter_operand *operand = bind_operand(made, 0);
    const struct document_value *value = &operand->value;
    const unsigned parameter =
        (unsigned)made->filter->operands[made->leaf->first_operand].parameter;
    size_t size = value->size;
    int is_whole = 0;
    if (bind_is_null(operand)) {
        bind_unknown(made, NULL, NULL);
        return OMENDB_OK;
    }
    if (value->type != DOCUMENT_TEXT)
        return error_set(OMENDB_INVALID,
                         "filter: parameter %u is compared with by LIKE or $prefix "
                         "and must be a text",
                         parameter);
    if (made->leaf->operator== FILTER_PREFIX) {
        memcpy(made->bytes, value->text, size);
    } else {
        const char *wrong =
            filter_pattern(made->leaf, value->text, size, made->bytes, &size, &is_whole);
        if (wrong != NULL)
            return error_set(OMENDB_INVALID, "filter: parameter %u: %s", parameter, wrong);
    }
    struct filter_operand whole;
    filter_text_operand(made->bytes, (uint32_t)size, &whole);
    if (is_whole)
        bind_point(made, &whole);
    else
        bind_prefix(made, size);
    return OMENDB_OK;
}

/* True, and numbers but 0. */
static void bind_truth(struct bind_set *made)
{
    static const struct filter_operand yes = {.value = {.type = DOCUMENT_TRUE}},
                                       zero = {.value = {.type = DOCUMENT_INTEGER}},
                                       text = {.value = {.type = DOCUMENT_TEXT,
                                                         .text = (const uint8_t *)""}};
    bind_range(made, &yes, 0, &zero, 1);
    bind_range(made, &zero, 1, &text, 1);
}

static int bind_comparison(struct bind_set *made)
{
    const struct filter_leaf *leaf = made->leaf;
    const struct filter_operand *operand = bind_operand(made, 0);
    const int is_null = bind_is_null(operand);
    int code = bind_not_an_array(made, 0);
    if (code != OMENDB_OK)
        return code;
    if (leaf->operator== FILTER_IS)
        made->set->null_matches = is_null != leaf->negated;
    else if (is_null)
        bind_unknown(made, NULL, NULL);
    if (is_null)
        return OMENDB_OK;
    const int is_open = leaf->operator== FILTER_LESS || leaf->operator== FILTER_GREATER;
    if (leaf->operator== FILTER_EQUAL || leaf->operator== FILTER_IS)
        bind_point(made, operand);
    else if (leaf->operator== FILTER_LESS || leaf->operator== FILTER_LESS_OR_EQUAL)
        bind_range(made, NULL, 0, operand, is_open);
    else
        bind_range(made, operand, is_open, NULL, 0);
    return OMENDB_OK;
}

static int bind_operator(struct bind_set *made)
{
    switch (made->leaf->operator) {
    case FILTER_IN:
        return bind_in(made);
    case FILTER_BETWEEN:
        return bind_between(made);
    case FILTER_LIKE:
    case FILTER_PREFIX:
        return bind_like(made);
    case FILTER_TRUTH:
        bind_truth(made);
        return OMENDB_OK;
    default:
        return bind_comparison(made);
    }
}

/* ------------------------------------------------------------------ one set, all sets */

/* Points that the operands can be, and bytes that a prefix of them and the text behind it take. */
static void bind_count(const omendb_filter *filter, const struct filter_leaf *leaf, size_t *points,
                       size_t *bytes)
{
    const int is_prefix = leaf->operator== FILTER_LIKE || leaf->operator== FILTER_PREFIX;
    *points = *bytes = 0;
    for (size_t i = 0; i < leaf->operand_count; i++) {
        const struct document_value *value =
            &bind_value(filter, &filter->operands[leaf->first_operand + i])->value;
        *points += value->type == DOCUMENT_TEXTS ? value->count : 1;
        if (is_prefix)
            *bytes += 2 * (size_t)value->size;
    }
}

#define BIND_RANGES 2 /* of one leaf, at most */

static int bind_make(const omendb_filter *filter, const struct filter_leaf *leaf,
                     struct filter_set *set)
{
    struct bind_set made = {.filter = filter, .leaf = leaf, .set = set};
    size_t points, bytes;
    memset(set, 0, sizeof *set);
    bind_count(filter, leaf, &points, &bytes);
    const int is_id = leaf->subject == FILTER_ID;
    const size_t ranges_size = is_id ? 0 : BIND_RANGES * sizeof *made.ranges;
    const size_t fixed = ranges_size + BIND_RANGES * sizeof *made.ids + bytes;
    const size_t point = is_id ? sizeof *made.ids : sizeof *made.values;
    set->block_size = memory_add(fixed, memory_multiply(points, point));
    set->block = memory_alloc(filter->memory, set->block_size);
    if (set->block == NULL)
        return OMENDB_NOMEM;
    uint8_t *block = set->block;
    made.ranges = set->block;
    made.ids = (struct filter_ids *)(void *)(block + ranges_size);
    made.values = (struct document_value *)(void *)(block + ranges_size);
    made.bytes = block + set->block_size - bytes;
    set->ranges = made.ranges;
    set->ids = made.ids;
    set->values = made.values;
    int code = bind_operator(&made);
    if (code == OMENDB_OK)
        bind_order(&made);
    return code;
}

OMENDB_INTERNAL void filter_free_set(struct memory *memory, struct filter_set *set)
{
    memory_free(memory, set->block, set->block_size);
    memset(set, 0, sizeof *set);
}

OMENDB_INTERNAL int filter_resolve(omendb_filter *filter)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < filter->leaf_count && code == OMENDB_OK; i++)
        code = bind_make(filter, &filter->leaves[i], &filter->leaves[i].set);
    return code;
}

/* ------------------------------------------------------------------ parameters */

static int bind_uses(const omendb_filter *filter, const struct filter_leaf *leaf,
                     uint32_t parameter)
{
    for (size_t i = 0; leaf->is_bound && i < leaf->operand_count; i++)
        if (filter->operands[leaf->first_operand + i].parameter == parameter)
            return 1;
    return 0;
}

/* Puts the sets that are made in the place of those that were, or forgets them. */
static void bind_settle(omendb_filter *filter, int keep)
{
    for (size_t i = 0; i < filter->leaf_count; i++) {
        struct filter_leaf *leaf = &filter->leaves[i];
        if (leaf->pending.block == NULL)
            continue;
        struct filter_set unused = keep ? leaf->set : leaf->pending;
        if (keep)
            leaf->set = leaf->pending;
        memset(&leaf->pending, 0, sizeof leaf->pending);
        filter_free_set(filter->memory, &unused);
    }
}

static int bind_check_index(const omendb_filter *filter, int index)
{
    if (index >= 1 && (size_t)index <= filter->parameter_count)
        return OMENDB_OK;
    return error_set(OMENDB_INVALID, "index is %d; the parameters of the filter are %s%zu", index,
                     filter->parameter_count == 0 ? "" : "1 to ", filter->parameter_count);
}

/* Takes the block over, also on failure. */
static int bind_take(omendb_filter *filter, int index, const struct filter_operand *operand,
                     void *block, size_t block_size)
{
    struct filter_parameter *parameter = &filter->parameters[index - 1];
    const struct filter_parameter before = *parameter;
    int code = OMENDB_OK;
    parameter->bound = *operand;
    parameter->block = block;
    parameter->block_size = block_size;
    for (size_t i = 0; i < filter->leaf_count && code == OMENDB_OK; i++)
        if (bind_uses(filter, &filter->leaves[i], (uint32_t)index))
            code = bind_make(filter, &filter->leaves[i], &filter->leaves[i].pending);
    bind_settle(filter, code == OMENDB_OK);
    if (code == OMENDB_OK) {
        memory_free(filter->memory, before.block, before.block_size);
        return OMENDB_OK;
    }
    *parameter = before;
    memory_free(filter->memory, block, block_size);
    return code;
}

OMENDB_INTERNAL int filter_bind(omendb_filter *filter, int index,
                                const struct filter_operand *operand)
{
    int code = bind_check_index(filter, index);
    return code == OMENDB_OK ? bind_take(filter, index, operand, NULL, 0) : code;
}

static int bind_check_text(const char *text, size_t size)
{
    const size_t legal = json_utf8_bytes((const uint8_t *)text, size);
    return legal == size ? OMENDB_OK
                         : error_set(OMENDB_INVALID, "the text is not UTF-8 at byte %zu", legal);
}

static int bind_too_big(void)
{
    return error_set(OMENDB_TOOBIG, "more than %u bytes for one parameter",
                     (unsigned)FILTER_BOUND_MAX);
}

OMENDB_INTERNAL int filter_bind_text(omendb_filter *filter, int index, const char *text)
{
    const size_t size = strlen(text);
    struct filter_operand operand;
    int code = bind_check_index(filter, index);
    if (code == OMENDB_OK && size > FILTER_BOUND_MAX)
        code = bind_too_big();
    if (code == OMENDB_OK)
        code = bind_check_text(text, size);
    if (code != OMENDB_OK)
        return code;
    uint8_t *block = memory_alloc(filter->memory, size);
    if (block == NULL)
        return OMENDB_NOMEM;
    memcpy(block, text, size);
    filter_text_operand(block, (uint32_t)size, &operand);
    return bind_take(filter, index, &operand, block, size);
}

/* All of them are UTF-8, and together not too large: *size as an array of a document. */
static int bind_check_texts(const char *const *texts, size_t count, size_t *size)
{
    int code = OMENDB_OK;
    *size = 0;
    for (size_t i = 0; i < count && code == OMENDB_OK; i++) {
        if (texts[i] == NULL)
            return error_set(OMENDB_MISUSE, "texts[%zu] is NULL", i);
        const size_t length = strlen(texts[i]);
        *size = memory_add(*size, memory_add(length, sizeof(uint32_t)));
        code = *size > FILTER_BOUND_MAX ? bind_too_big() : bind_check_text(texts[i], length);
    }
    return code;
}

OMENDB_INTERNAL int filter_bind_texts(omendb_filter *filter, int index, const char *const *texts,
                                      size_t count)
{
    size_t size, at = 0;
    int code = bind_check_index(filter, index);
    if (code == OMENDB_OK)
        code = bind_check_texts(texts, count, &size);
    if (code != OMENDB_OK)
        return code;
    uint8_t *block = memory_alloc(filter->memory, size);
    if (block == NULL)
        return OMENDB_NOMEM;
    for (size_t i = 0; i < count; i++) {
        const uint32_t length = (uint32_t)strlen(texts[i]);
        memcpy(block + at, &length, sizeof length);
        memcpy(block + at + sizeof length, texts[i], length);
        at += sizeof length + length;
    }
    const struct filter_operand operand = {.value = {.type = DOCUMENT_TEXTS,
                                                     .text = block,
                                                     .size = (uint32_t)size,
                                                     .count = (uint32_t)count}};
    return bind_take(filter, index, &operand, block, size);
}

#undef BIND_RANGES
