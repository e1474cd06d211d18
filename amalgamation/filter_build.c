/* filter_build.c: leaves and nodes of a filter, as its text is read, and what is wrong with that.
 */
#include "filter_build.h"
#include "decimal.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------ errors */

/* Characters of the text that are shown before the place, and behind it. */
#define BUILD_BEFORE        30
#define BUILD_BEHIND        20
#define BUILD_EXCERPT_BYTES ((BUILD_BEFORE + BUILD_BEHIND + 1) * 4)

static size_t filter_build_back(const char *text, size_t at)
{
    do
        at--;
    while (at > 0 && ((uint8_t)text[at] & 0xC0) == 0x80);
    return at;
}

static size_t filter_build_forth(const char *text, size_t size, size_t at)
{
    do
        at++;
    while (at < size && ((uint8_t)text[at] & 0xC0) == 0x80);
    return at;
}

/* Control characters would move what is below them out of place. */
static void filter_build_show(char *out, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        out[i] = (uint8_t)text[i] < 0x20 || text[i] == 0x7F ? ' ' : text[i];
    out[size] = '\0';
}

OMENDB_INTERNAL int filter_show_place(const struct filter_builder *builder, int code, size_t at)
{
    char excerpt[BUILD_EXCERPT_BYTES + 1];
    size_t begin = at, end = at, column = 0;
    for (; begin > 0 && column < BUILD_BEFORE; column++)
        begin = filter_build_back(builder->text, begin);
    for (size_t i = 0; end < builder->size && i < BUILD_BEHIND; i++)
        end = filter_build_forth(builder->text, builder->size, end);
    filter_build_show(excerpt, builder->text + begin, end - begin);
    const char *before = begin > 0 ? "..." : "", *behind = end < builder->size ? "..." : "";
    return error_set(code, "%s\n    %s%s%s\n    %*s", error_text(), before, excerpt, behind,
                     (int)(column + strlen(before) + 1), "^");
}

OMENDB_INTERNAL int filter_fail(const struct filter_builder *builder, int code, size_t at,
                                const char *format, ...)
{
    char what[200];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    error_set(code, "filter: byte %zu: %s", at, what);
    return filter_show_place(builder, code, at);
}

OMENDB_INTERNAL void filter_quote(const struct filter_builder *builder, size_t at, size_t size,
                                  char quoted[FILTER_QUOTE_BYTES])
{
    const size_t most = FILTER_QUOTE_BYTES - sizeof "'...'";
    size_t shown = size;
    if (shown > most)
        shown = most;
    while (shown < size && shown > 0 && ((uint8_t)builder->text[at + shown] & 0xC0) == 0x80)
        shown--;
    quoted[0] = '\'';
    filter_build_show(quoted + 1, builder->text + at, shown);
    memcpy(quoted + 1 + shown, shown < size ? "...'" : "'", shown < size ? 5 : 2);
}

/* ------------------------------------------------------------------ arrays */

/* Room for one more. */
static int filter_build_reserve(struct memory *memory, void *array, size_t *capacity, size_t count,
                                size_t element)
{
    void *block;
    if (count < *capacity)
        return OMENDB_OK;
    const size_t more = memory_add(*capacity, *capacity < 4 ? 4 : *capacity / 2);
    memcpy(&block, array, sizeof block);
    block = memory_resize(memory, block, *capacity * element, memory_multiply(more, element));
    if (block == NULL)
        return OMENDB_NOMEM;
    memcpy(array, &block, sizeof block);
    *capacity = more;
    return OMENDB_OK;
}

OMENDB_INTERNAL const uint8_t *filter_keep_text(struct filter_builder *builder, size_t at,
                                                size_t size)
{
    uint8_t *kept = builder->filter->bytes + builder->bytes_used;
    memcpy(kept, builder->text + at, size);
    builder->bytes_used += size;
    return kept;
}

/* ------------------------------------------------------------------ groups, leaves, operands */

static int filter_build_is_negated(const struct filter_builder *builder)
{
    return builder->depth > 0 && builder->groups[builder->depth - 1].negated;
}

static int filter_build_node(struct filter_builder *builder, enum filter_node_kind kind,
                             uint32_t leaf)
{
    omendb_filter *filter = builder->filter;
    int code = filter_build_reserve(filter->memory, &filter->nodes, &filter->node_capacity,
                                    filter->node_count, sizeof *filter->nodes);
    if (code != OMENDB_OK)
        return code;
    const uint32_t at = (uint32_t)filter->node_count++;
    filter->nodes[at] = (struct filter_node){kind, at + 1, leaf};
    return OMENDB_OK;
}

OMENDB_INTERNAL int filter_open_group(struct filter_builder *builder, enum filter_node_kind kind,
                                      int negate)
{
    const int negated = filter_build_is_negated(builder) != negate;
    if (negated)
        kind = kind == FILTER_AND ? FILTER_OR : FILTER_AND;
    int code = filter_build_node(builder, kind, 0);
    if (code != OMENDB_OK)
        return code;
    builder->groups[builder->depth++] =
        (struct filter_group){(uint32_t)builder->filter->node_count - 1, negated};
    return OMENDB_OK;
}

OMENDB_INTERNAL void filter_close_group(struct filter_builder *builder)
{
    omendb_filter *filter = builder->filter;
    filter->nodes[builder->groups[--builder->depth].node].end = (uint32_t)filter->node_count;
}

OMENDB_INTERNAL int filter_add_leaf(struct filter_builder *builder, const struct filter_side *side,
                                    enum filter_operator operator, int negate)
{
    omendb_filter *filter = builder->filter;
    if (filter->leaf_count == FILTER_LEAVES_MAX)
        return filter_fail(builder, OMENDB_TOOBIG, side->at, "more than %d conditions",
                           FILTER_LEAVES_MAX);
    int code = filter_build_reserve(filter->memory, &filter->leaves, &filter->leaf_capacity,
                                    filter->leaf_count, sizeof *filter->leaves);
    if (code == OMENDB_OK)
        code = filter_build_node(builder, FILTER_LEAF, (uint32_t)filter->leaf_count);
    if (code != OMENDB_OK)
        return code;
    struct filter_leaf *leaf = &filter->leaves[filter->leaf_count++];
    memset(leaf, 0, sizeof *leaf);
    leaf->subject = side->subject;
    leaf->operator= operator;
    leaf->negated = filter_build_is_negated(builder) != negate;
    leaf->first_operand = filter->operand_count;
    if (side->subject == FILTER_CONSTANT)
        leaf->constant = side->operand;
    if (side->subject == FILTER_FIELD) {
        leaf->name = side->name;
        leaf->name_size = side->name_size;
        leaf->name_hash = document_hash_name(side->name, side->name_size);
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int filter_add_operand(struct filter_builder *builder,
                                       const struct filter_operand *operand)
{
    omendb_filter *filter = builder->filter;
    struct filter_leaf *leaf = &filter->leaves[filter->leaf_count - 1];
    int code = filter_build_reserve(filter->memory, &filter->operands, &filter->operand_capacity,
                                    filter->operand_count, sizeof *filter->operands);
    if (code != OMENDB_OK)
        return code;
    filter->operands[filter->operand_count++] = *operand;
    leaf->operand_count++;
    leaf->is_bound = leaf->is_bound || operand->parameter != 0;
    return OMENDB_OK;
}

OMENDB_INTERNAL int filter_add_parameter(struct filter_builder *builder, size_t at, uint64_t number,
                                         struct filter_operand *operand)
{
    omendb_filter *filter = builder->filter;
    if (number == 0 || number > FILTER_PARAMETERS_MAX)
        return filter_fail(builder, OMENDB_INVALID, at, "numbers of parameters are 1 to %d",
                           FILTER_PARAMETERS_MAX);
    int code = OMENDB_OK;
    while (filter->parameter_count < number && code == OMENDB_OK) {
        code =
            filter_build_reserve(filter->memory, &filter->parameters, &filter->parameter_capacity,
                                 filter->parameter_count, sizeof *filter->parameters);
        if (code == OMENDB_OK)
            memset(&filter->parameters[filter->parameter_count++], 0, sizeof *filter->parameters);
    }
    *operand = (struct filter_operand){.parameter = (uint32_t)number};
    return code;
}

OMENDB_INTERNAL int filter_add_named(struct filter_builder *builder, size_t at, const uint8_t *name,
                                     uint32_t size, struct filter_operand *operand)
{
    omendb_filter *filter = builder->filter;
    if (size == 0)
        return filter_fail(builder, OMENDB_INVALID, at, "expected the name of a parameter");
    for (size_t i = 0; i < filter->parameter_count; i++) {
        const struct filter_parameter *parameter = &filter->parameters[i];
        if (parameter->name_size != size || memcmp(parameter->name, name, size) != 0)
            continue;
        *operand = (struct filter_operand){.parameter = (uint32_t)i + 1};
        return OMENDB_OK;
    }
    int code = filter_add_parameter(builder, at, filter->parameter_count + 1, operand);
    if (code != OMENDB_OK)
        return code;
    filter->parameters[operand->parameter - 1].name = name;
    filter->parameters[operand->parameter - 1].name_size = size;
    return OMENDB_OK;
}

OMENDB_INTERNAL int filter_name_side(const struct filter_builder *builder, const uint8_t *name,
                                     size_t size, int is_quoted, struct filter_side *side)
{
    if (size > DOCUMENT_NAME_MAX)
        return filter_fail(builder, OMENDB_INVALID, side->at,
                           "a name of %zu bytes; fields have at most %d", size, DOCUMENT_NAME_MAX);
    side->subject = FILTER_FIELD;
    if (size == 3 && memcmp(name, "_id", 3) == 0)
        side->subject = FILTER_ID;
    else if (size == 4 && memcmp(name, "_key", 4) == 0)
        side->subject = FILTER_KEY;
    else if (size > 0 && name[0] == '_' && !is_quoted)
        return filter_fail(
            builder, OMENDB_INVALID, side->at,
            "of names with _ in front there are _id and _key; a field of the metadata "
            "that has such a name takes double quotes, in the form of text");
    side->name = name;
    side->name_size = (uint32_t)size;
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ numbers */

/* 0: it is beyond 64 bits. */
static int filter_build_whole(const struct decimal *decimal, uint64_t *number)
{
    *number = 0;
    for (size_t i = 0; i < decimal->whole_size; i++) {
        const uint8_t digit = (uint8_t)(decimal->whole[i] - '0');
        if (*number > (UINT64_MAX - digit) / 10)
            return 0;
        *number = *number * 10 + digit;
    }
    return 1;
}

static size_t filter_build_digits(const uint8_t *text, size_t size)
{
    size_t count = 0;
    while (count < size && text[count] >= '0' && text[count] <= '9')
        count++;
    return count;
}

/* "e-12", or nothing. */
static int64_t filter_build_exponent(const uint8_t *text, size_t size)
{
    int64_t exponent = 0;
    if (size < 2)
        return 0;
    const int has_sign = text[1] == '-' || text[1] == '+';
    for (size_t i = has_sign ? 2 : 1; i < size && exponent < DECIMAL_EXPONENT_MAX / 10; i++)
        exponent = exponent * 10 + (text[i] - '0');
    return text[1] == '-' ? -exponent : exponent;
}

OMENDB_INTERNAL int filter_number(const struct filter_builder *builder, size_t at, size_t size,
                                  struct filter_operand *operand)
{
    const uint8_t *text = (const uint8_t *)builder->text + at, *end = text + size;
    struct decimal decimal = {0};
    uint64_t number = 0;
    const int is_negative = *text == '-';
    text += *text == '-' || *text == '+';
    while (text < end && *text <= ' ')
        text++;
    decimal.whole = text;
    decimal.whole_size = filter_build_digits(text, (size_t)(end - text));
    text += decimal.whole_size;
    const int is_whole = text == end && filter_build_whole(&decimal, &number);
    decimal.fraction = text;
    if (text < end && *text == '.') {
        decimal.fraction = text + 1;
        decimal.fraction_size = filter_build_digits(text + 1, (size_t)(end - text) - 1);
        text += 1 + decimal.fraction_size;
    }
    decimal.exponent = filter_build_exponent(text, (size_t)(end - text));
    *operand = (struct filter_operand){.value = {.type = DOCUMENT_INTEGER}};
    if (is_whole && number <= (uint64_t)INT64_MAX + (uint64_t)is_negative) {
        operand->value.integer = is_negative ? (int64_t)(~number + 1) : (int64_t)number;
        return OMENDB_OK;
    }
    operand->value.type = DOCUMENT_REAL;
    operand->value.real = decimal_value(&decimal) * (is_negative ? -1.0 : 1.0);
    operand->beyond = is_whole && !is_negative ? number : 0;
    return isfinite(operand->value.real)
               ? OMENDB_OK
               : filter_fail(builder, OMENDB_INVALID, at, "a number that is too large");
}

/* ------------------------------------------------------------------ the order of evaluation */

/* Groups that are open while nodes are gone through, outermost first. */
struct filter_path {
    struct {
        uint32_t node, end;
        uint32_t if_true, if_false;
    } groups[FILTER_GROUPS_MAX + 1];
    uint32_t depth;
};

/* Takes groups out that have one child, or are in a group of their own kind. */
static void filter_build_flatten(omendb_filter *filter)
{
    struct filter_node *nodes = filter->nodes;
    struct filter_path path = {.depth = 0};
    uint32_t kept = 0;
    for (uint32_t i = 0; i <= filter->node_count; i++) {
        while (path.depth > 0 && path.groups[path.depth - 1].end <= i)
            nodes[path.groups[--path.depth].node].end = kept;
        if (i == filter->node_count)
            break;
        const struct filter_node node = nodes[i];
        const int is_group = node.kind != FILTER_LEAF;
        if (is_group &&
            (nodes[i + 1].end == node.end ||
             (path.depth > 0 && nodes[path.groups[path.depth - 1].node].kind == node.kind)))
            continue;
        if (is_group) {
            path.groups[path.depth].node = kept;
            path.groups[path.depth++].end = node.end;
        }
        nodes[kept] = node;
        nodes[kept].end = kept + 1;
        kept++;
    }
    filter->node_count = kept;
}

/* The first leaf at or behind a node. */
static uint32_t filter_build_first_leaf(const omendb_filter *filter, uint32_t node)
{
    while (filter->nodes[node].kind != FILTER_LEAF)
        node++;
    return filter->nodes[node].leaf;
}

static void filter_build_order(omendb_filter *filter)
{
    struct filter_path path = {.depth = 0};
    for (uint32_t i = 0; i < filter->node_count; i++) {
        const struct filter_node *node = &filter->nodes[i];
        uint32_t if_true = FILTER_MATCH, if_false = FILTER_MISS;
        while (path.depth > 0 && path.groups[path.depth - 1].end <= i)
            path.depth--;
        if (path.depth > 0) {
            const uint32_t end = path.groups[path.depth - 1].end;
            const int is_and = filter->nodes[path.groups[path.depth - 1].node].kind == FILTER_AND;
            if_true = path.groups[path.depth - 1].if_true;
            if_false = path.groups[path.depth - 1].if_false;
            if (node->end < end)
                *(is_and ? &if_true : &if_false) = filter_build_first_leaf(filter, node->end);
        }
        if (node->kind == FILTER_LEAF) {
            filter->leaves[node->leaf].if_true = if_true;
            filter->leaves[node->leaf].if_false = if_false;
        } else {
            path.groups[path.depth].node = i;
            path.groups[path.depth].end = node->end;
            path.groups[path.depth].if_true = if_true;
            path.groups[path.depth++].if_false = if_false;
        }
    }
}

OMENDB_INTERNAL int filter_build_end(struct filter_builder *builder)
{
    omendb_filter *filter = builder->filter;
    filter_build_flatten(filter);
    filter_build_order(filter);
    struct filter_node *nodes =
        memory_resize(filter->memory, filter->nodes, filter->node_capacity * sizeof *nodes,
                      filter->node_count * sizeof *nodes);
    if (nodes == NULL)
        return OMENDB_NOMEM;
    filter->nodes = nodes;
    filter->node_capacity = filter->node_count;
    return OMENDB_OK;
}

#undef BUILD_BEFORE
#undef BUILD_BEHIND
#undef BUILD_EXCERPT_BYTES
