/* filter_match.c: whether a record matches a filter. */
#include "filter.h"

#include <string.h>

/* Most comparisons are of two integers or of two texts. */
static inline int match_order(const struct document_value *a, const struct document_value *b)
{
    if (a->type == DOCUMENT_INTEGER && b->type == DOCUMENT_INTEGER)
        return (a->integer > b->integer) - (a->integer < b->integer);
    return document_compare(a, b);
}

static inline int match_is_equal(const struct document_value *a, const struct document_value *b)
{
    if (a->type == DOCUMENT_TEXT && b->type == DOCUMENT_TEXT)
        return a->size == b->size && memcmp(a->text, b->text, a->size) == 0;
    return match_order(a, b) == 0;
}

static int match_values(const struct filter_set *set, const struct document_value *value)
{
    uint32_t low = 0, high = set->value_count;
    if (high == 1)
        return match_is_equal(set->values, value);
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const int order = match_order(&set->values[middle], value);
        if (order == 0)
            return 1;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

static int match_range(const struct filter_range *range, const struct document_value *value)
{
    if (range->low.type != DOCUMENT_NULL) {
        const int order = match_order(value, &range->low);
        if (order < 0 || (order == 0 && range->low_open))
            return 0;
    }
    if (range->high.type == DOCUMENT_NULL)
        return 1;
    const int order = match_order(value, &range->high);
    return order < 0 || (order == 0 && !range->high_open);
}

static int match_set(const struct filter_set *set, const struct document_value *value)
{
    if (set->value_count != 0)
        return match_values(set, value);
    for (uint32_t i = 0; i < set->range_count; i++)
        if (match_range(&set->ranges[i], value))
            return 1;
    return 0;
}

static int match_any_text(const struct filter_set *set, const struct document_value *texts)
{
    struct document_value text = {.type = DOCUMENT_TEXT, .count = 1};
    uint32_t at = 0;
    while (document_next_text(texts, &at, &text.text, &text.size))
        if (match_set(set, &text))
            return 1;
    return 0;
}

static int match_id(const struct filter_set *set, uint64_t id)
{
    uint32_t low = 0, high = set->id_count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (set->ids[middle].last < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < set->id_count && set->ids[low].first <= id;
}

static void match_subject(const omendb_filter *filter, const struct filter_leaf *leaf,
                          const uint8_t *document, struct document_value *value)
{
    uint32_t size;
    switch (leaf->subject) {
    case FILTER_KEY:
        *value = (struct document_value){.type = DOCUMENT_NULL};
        value->text = document_key(document, &size);
        value->size = size;
        if (value->text != NULL)
            value->type = DOCUMENT_TEXT;
        break;
    case FILTER_CONSTANT:
        *value = leaf->constant.parameter == 0
                     ? leaf->constant.value
                     : filter->parameters[leaf->constant.parameter - 1].bound.value;
        break;
    default:
        document_find(document, leaf->name, leaf->name_size, leaf->name_hash, value);
    }
}

OMENDB_INTERNAL int filter_leaf_matches(const omendb_filter *filter, const struct filter_leaf *leaf,
                                        uint64_t id, const uint8_t *document)
{
    struct document_value value;
    if (leaf->subject == FILTER_ID)
        return match_id(&leaf->set, id) != leaf->negated;
    match_subject(filter, leaf, document, &value);
    if (value.type == DOCUMENT_NULL)
        return leaf->set.null_matches;
    return (value.type == DOCUMENT_TEXTS ? match_any_text(&leaf->set, &value)
                                         : match_set(&leaf->set, &value)) != leaf->negated;
}

OMENDB_INTERNAL int filter_matches(const omendb_filter *filter, uint64_t id,
                                   const uint8_t *document)
{
    uint32_t next = 0;
    while (next < FILTER_MISS) {
        const struct filter_leaf *leaf = &filter->leaves[next];
        next = filter_leaf_matches(filter, leaf, id, document) ? leaf->if_true : leaf->if_false;
    }
    return next == FILTER_MATCH;
}
