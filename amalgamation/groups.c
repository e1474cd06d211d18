/* groups.c: see groups.h.
 *
 * ROUNDS. Hits are looked for in rounds, each a search of its own. Those of a round are gone
 * through in their order; each is taken whose values still have room. The next round searches for
 * what is missing among the records of which no value is full: that is a condition on the field
 * (NOT field IN (the full values)), which stands beside the filter of the caller as if it were part
 * of it, so that planner and columns serve it.
 *   What a round leaves out has a full value, and stays out: values only fill. So where rounds are
 * exact, what is taken is what one walk through all records in the order of distance would take.
 *   How many rounds: one that does not end the search found as many records as it asked for, more
 * than are missing, which it did not take, so it filled a value. Full values hold group_size hits
 * each (of arrays: share them), so there are at most k / group_size + 1 rounds for fields without
 * arrays; and as each asks for twice as many as the one before, few are needed.
 *
 * VALUES are compared as document_compare says. Null and absent are one value. An array of texts
 * belongs to each of them, an empty one to none. Values are told apart by sorting those of a round
 * together with those that are known: no hash, which a writer of metadata could aim at.
 *
 * Rejected: one search for very many, of which most are dropped (where one value has half of the
 * nearest records that is a scan of all); the test inside of the walk with the counts of the moment
 * (what comes first in a walk is not what is nearest). */
#include "groups.h"

#include <string.h>

/* Hits that the first round asks for: the groups of the nearest often have several each. */
#define GROUPS_FIRST(missing) ((missing) + (missing) / 2 + 8)
#define GROUPS_RUN            4
#define GROUPS_NULL           UINT32_MAX /* groups_item.hit of a value that is known */

/* A value of the field, and how many taken hits have it. */
struct groups_value {
    struct document_value value;
    size_t taken;
};

/* That hit number `hit` of a round has a value; or a known value. */
struct groups_item {
    struct document_value value;
    uint32_t hit;
    uint32_t number; /* of the value */
};
_Static_assert(sizeof(struct groups_item) <= 64, "sort_array takes such items");

struct groups {
    const struct search_request *asked;
    struct memory *memory;
    enum filter_subject subject;
    uint32_t name_size, name_hash;
    struct search_hit *taken; /* k of them */
    size_t taken_count;
    uint64_t *taken_ids; /* the same, ascending, as of the beginning of the round */
    size_t taken_known;
    struct groups_value *values; /* ascending */
    size_t value_count, value_room;
    size_t nulls; /* taken */
    struct groups_item *items;
    size_t item_count, item_room;
    uint64_t *ids; /* of the round, as the next two */
    float *distances;
    uint8_t *is_null;
    size_t round_room;
    struct document_value *full; /* of the leaf */
    size_t full_room;
    omendb_filter filter; /* that of the caller AND the leaf */
    struct search_predicate predicate;
};

/* ------------------------------------------------------------------ the filter of the rounds */

static int groups_make_nodes(struct groups *groups, const omendb_filter *base)
{
    omendb_filter *filter = &groups->filter;
    const uint32_t below = base == NULL ? 0 : (uint32_t)base->node_count;
    const int is_and = below != 0 && base->nodes[0].kind == FILTER_AND;
    const uint32_t shift = below == 0 || is_and ? 0 : 1;
    filter->node_capacity = (size_t)below + 2;
    filter->nodes = memory_array(groups->memory, filter->node_capacity, sizeof *filter->nodes);
    if (filter->nodes == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < below; i++) {
        filter->nodes[i + shift] = base->nodes[i];
        filter->nodes[i + shift].end += shift;
    }
    filter->node_count = below + shift + 1;
    const uint32_t end = (uint32_t)filter->node_count;
    filter->nodes[end - 1] = (struct filter_node){FILTER_LEAF, end, (uint32_t)filter->leaf_count};
    if (below != 0)
        filter->nodes[0] = (struct filter_node){FILTER_AND, end, 0};
    return OMENDB_OK;
}

/* The caller's conditions, and behind them one more that all that matched must pass, too. */
static int groups_make_filter(struct groups *groups)
{
    const struct search_predicate *predicate = groups->asked->predicate;
    const omendb_filter *base = predicate == NULL ? NULL : predicate->filter;
    omendb_filter *filter = &groups->filter;
    *filter = base == NULL ? (omendb_filter){.leaves = NULL} : *base;
    filter->leaves = NULL;
    filter->leaf_capacity = filter->leaf_count + 1;
    if (groups_make_nodes(groups, base) != OMENDB_OK)
        return OMENDB_NOMEM;
    filter->leaves = memory_array(groups->memory, filter->leaf_capacity, sizeof *filter->leaves);
    if (filter->leaves == NULL)
        return OMENDB_NOMEM;
    for (size_t i = 0; i < filter->leaf_count; i++) {
        filter->leaves[i] = base->leaves[i];
        if (filter->leaves[i].if_true == FILTER_MATCH)
            filter->leaves[i].if_true = (uint32_t)filter->leaf_count;
        if (filter->leaves[i].if_false == FILTER_MATCH)
            filter->leaves[i].if_false = (uint32_t)filter->leaf_count;
    }
    filter->leaves[filter->leaf_count++] =
        (struct filter_leaf){.subject = groups->subject,
                             .operator= FILTER_IN,
                             .negated = 1,
                             .if_true = FILTER_MATCH,
                             .if_false = FILTER_MISS,
                             .name = (const uint8_t *)groups->asked->group_by,
                             .name_size = groups->name_size,
                             .name_hash = groups->name_hash};
    groups->predicate = predicate == NULL ? (struct search_predicate){.match = NULL} : *predicate;
    groups->predicate.filter = filter;
    return OMENDB_OK;
}

/* The condition on the field leaves out the values that are full. */
static int groups_leave_out_full(struct groups *groups)
{
    struct filter_set *set;
    size_t full = 0;
    int code = groups->filter.leaves == NULL ? groups_make_filter(groups) : OMENDB_OK;
    if (code != OMENDB_OK)
        return code;
    if (groups->value_count > groups->full_room) {
        memory_free(groups->memory, groups->full, groups->full_room * sizeof *groups->full);
        groups->full = memory_array(groups->memory, groups->value_room, sizeof *groups->full);
        groups->full_room = groups->full == NULL ? 0 : groups->value_room;
        if (groups->full == NULL)
            return OMENDB_NOMEM;
    }
    for (size_t i = 0; i < groups->value_count; i++) {
        if (groups->values[i].taken >= groups->asked->group_size)
            groups->full[full++] = groups->values[i].value;
    }
    set = &groups->filter.leaves[groups->filter.leaf_count - 1].set;
    *set = (struct filter_set){.values = groups->full, .value_count = (uint32_t)full};
    set->null_matches = groups->nulls < groups->asked->group_size;
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ values of hits */

static int groups_document(const struct groups *groups, uint64_t id, const uint8_t **document)
{
    const struct search_request *asked = groups->asked;
    const struct txn_write *own =
        asked->txn == NULL ? NULL : txn_find(asked->txn, asked->collection, id);
    struct location location;
    *document = own == NULL ? NULL : own->document;
    if (own != NULL)
        return OMENDB_OK;
    int code = version_locate(asked->version, id, asked->commit, &location);
    if (code == OMENDB_OK && (location.memtable != NULL || location.segment != NULL))
        code = location_document(&location, asked->commit, document);
    return code;
}

static void groups_find(const struct groups *groups, const uint8_t *document,
                        struct document_value *value)
{
    uint32_t size;
    if (groups->subject != FILTER_KEY) {
        document_find(document, (const uint8_t *)groups->asked->group_by, groups->name_size,
                      groups->name_hash, value);
        return;
    }
    memset(value, 0, sizeof *value);
    value->text = document_key(document, &size);
    value->type = value->text == NULL ? DOCUMENT_NULL : DOCUMENT_TEXT;
    value->size = size;
    value->count = 1;
}

/* Room for so many more items. */
static int groups_reserve_items(struct groups *groups, size_t more)
{
    const size_t needed = memory_add(groups->item_count, more);
    if (needed <= groups->item_room)
        return OMENDB_OK;
    const size_t room = memory_add(needed, groups->item_room / 2 + 16);
    struct groups_item *items =
        memory_resize(groups->memory, groups->items, groups->item_room * sizeof *items,
                      memory_multiply(room, sizeof *items));
    if (items == NULL)
        return OMENDB_NOMEM;
    groups->items = items;
    groups->item_room = room;
    return OMENDB_OK;
}

static void groups_add_item(struct groups *groups, const struct document_value *value, uint32_t hit)
{
    groups->items[groups->item_count++] = (struct groups_item){*value, hit, 0};
}

static int groups_gather_hit(struct groups *groups, uint32_t hit)
{
    struct document_value value, text = {.type = DOCUMENT_TEXT, .count = 1};
    const uint8_t *document;
    uint32_t at = 0;
    int code = groups_document(groups, groups->ids[hit], &document);
    if (code != OMENDB_OK)
        return code;
    groups_find(groups, document, &value);
    groups->is_null[hit] = value.type == DOCUMENT_NULL;
    if (groups_reserve_items(groups, value.type == DOCUMENT_TEXTS ? value.count : 1) != OMENDB_OK)
        return OMENDB_NOMEM;
    if (value.type == DOCUMENT_TEXTS) {
        while (document_next_text(&value, &at, &text.text, &text.size))
            groups_add_item(groups, &text, hit);
    } else if (value.type != DOCUMENT_NULL) {
        groups_add_item(groups, &value, hit);
    }
    return OMENDB_OK;
}

/* Known values come before hits that have them. */
static int groups_compare_values(const void *left, const void *right)
{
    const struct groups_item *a = left, *b = right;
    const int order = document_compare(&a->value, &b->value);
    return order != 0 ? order : (a->hit + 1 > b->hit + 1) - (a->hit + 1 < b->hit + 1);
}

static int groups_compare_hits(const void *left, const void *right)
{
    const struct groups_item *a = left, *b = right;
    return a->hit != b->hit ? (a->hit > b->hit) - (a->hit < b->hit)
                            : (a->number > b->number) - (a->number < b->number);
}

/* The values of the items, in order, become the known ones; each item gets the number of its
 * value. Items of one hit with the same value, and those of known values, go. */
static int groups_number_items(struct groups *groups)
{
    struct groups_item *items = groups->items;
    const size_t count = groups->item_count;
    size_t known = 0, values = 0, kept = 0;
    struct groups_value *made = memory_array(groups->memory, count + 1, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    sort_array(items, count, sizeof *items, groups_compare_values);
    for (size_t i = 0; i < count; i++) {
        const int is_known = items[i].hit == GROUPS_NULL;
        if (values == 0 || document_compare(&made[values - 1].value, &items[i].value) != 0)
            made[values++] = (struct groups_value){items[i].value, 0};
        items[i].number = (uint32_t)values - 1;
        if (is_known)
            made[values - 1].taken = groups->values[known++].taken;
        else if (kept == 0 || items[kept - 1].hit != items[i].hit ||
                 items[kept - 1].number != items[i].number)
            items[kept++] = items[i];
    }
    memory_free(groups->memory, groups->values, groups->value_room * sizeof *groups->values);
    groups->values = made;
    groups->value_room = count + 1;
    groups->value_count = values;
    groups->item_count = kept;
    sort_array(items, kept, sizeof *items, groups_compare_hits);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ rounds */

static int groups_is_taken(const struct groups *groups, uint64_t id)
{
    size_t low = 0, high = groups->taken_known;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (groups->taken_ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < groups->taken_known && groups->taken_ids[low] == id;
}

/* Takes hit number `hit`, which has the items [first, last), if none of its values is full. */
static void groups_take(struct groups *groups, uint32_t hit, size_t first, size_t last)
{
    const size_t most = groups->asked->group_size;
    if (groups->is_null[hit] && groups->nulls >= most)
        return;
    for (size_t i = first; i < last; i++) {
        if (groups->values[groups->items[i].number].taken >= most)
            return;
    }
    for (size_t i = first; i < last; i++)
        groups->values[groups->items[i].number].taken++;
    groups->nulls += groups->is_null[hit];
    groups->taken[groups->taken_count++] =
        (struct search_hit){groups->distances[hit], groups->ids[hit]};
}

/* Hits [first, last) of a round. */
static int groups_take_run(struct groups *groups, uint32_t first, uint32_t last)
{
    size_t at = 0;
    int code = OMENDB_OK;
    groups->item_count = 0;
    for (uint32_t hit = first; hit < last && code == OMENDB_OK; hit++) {
        if (!groups_is_taken(groups, groups->ids[hit]))
            code = groups_gather_hit(groups, hit);
    }
    if (code == OMENDB_OK)
        code = groups_reserve_items(groups, groups->value_count);
    for (size_t i = 0; i < groups->value_count && code == OMENDB_OK; i++)
        groups_add_item(groups, &groups->values[i].value, GROUPS_NULL);
    if (code == OMENDB_OK)
        code = groups_number_items(groups);
    for (uint32_t hit = first; hit < last && code == OMENDB_OK; hit++) {
        size_t end = at;
        while (end < groups->item_count && groups->items[end].hit == hit)
            end++;
        if (groups->taken_count < groups->asked->k && !groups_is_taken(groups, groups->ids[hit]))
            groups_take(groups, hit, at, end);
        at = end;
    }
    return code;
}

/* In runs, as the first of them mostly are enough: of the others nothing need be read. A run is not
 * much shorter than what is known, which is put in order with each. */
static int groups_take_round(struct groups *groups, uint32_t count)
{
    uint32_t first = 0;
    int code = OMENDB_OK;
    while (first < count && groups->taken_count < groups->asked->k && code == OMENDB_OK) {
        const size_t missing = groups->asked->k - groups->taken_count;
        const size_t known = groups->value_count / 2;
        const size_t run = (missing > known ? missing : known) + GROUPS_RUN;
        const uint32_t last = run < count - first ? first + (uint32_t)run : count;
        code = groups_take_run(groups, first, last);
        first = last;
    }
    return code;
}

static int groups_reserve_round(struct groups *groups, size_t hits)
{
    const size_t room = groups->round_room;
    if (hits <= room)
        return OMENDB_OK;
    memory_free(groups->memory, groups->ids, room * sizeof *groups->ids);
    memory_free(groups->memory, groups->distances, room * sizeof *groups->distances);
    memory_free(groups->memory, groups->is_null, room);
    groups->ids = memory_array(groups->memory, hits, sizeof *groups->ids);
    groups->distances = memory_array(groups->memory, hits, sizeof *groups->distances);
    groups->is_null = memory_alloc(groups->memory, hits);
    groups->round_room = hits;
    return groups->ids == NULL || groups->distances == NULL || groups->is_null == NULL
               ? OMENDB_NOMEM
               : OMENDB_OK;
}

static void groups_know_taken(struct groups *groups)
{
    for (size_t i = 0; i < groups->taken_count; i++)
        groups->taken_ids[i] = groups->taken[i].id;
    groups->taken_known = groups->taken_count;
    sort_array(groups->taken_ids, groups->taken_known, sizeof *groups->taken_ids,
               sort_compare_numbers);
}

/* What one more search did; its share of matches is that of the first. */
static void groups_tell(const omendb_explain *round, omendb_explain *all)
{
    const int first = all->segments == 0;
    all->graph_rows += round->graph_rows;
    all->scanned_rows += round->scanned_rows;
    all->expanded += round->expanded;
    all->distances += round->distances;
    all->segments += round->segments;
    all->ef = round->ef > all->ef ? round->ef : all->ef;
    all->recall = first || round->recall < all->recall ? round->recall : all->recall;
    all->warnings |= round->warnings;
    all->matches_tested += round->matches_tested;
    all->selectivity = first ? round->selectivity : all->selectivity;
    all->path |= round->path;
}

static int groups_round(struct groups *groups, struct scratch *scratch, size_t wanted,
                        size_t *count, omendb_explain *explain)
{
    struct search_request request = *groups->asked;
    omendb_explain round = OMENDB_EXPLAIN_INIT;
    int code = groups_reserve_round(groups, wanted);
    request.k = wanted;
    if (code == OMENDB_OK && groups->taken_known != 0)
        code = groups_leave_out_full(groups);
    if (code == OMENDB_OK && groups->taken_known != 0) {
        request.predicate = &groups->predicate;
        request.batch = 0;
    }
    if (code == OMENDB_OK)
        code = search_run(&request, scratch, groups->ids, groups->distances, count, &round);
    if (code == OMENDB_OK)
        code = groups_take_round(groups, (uint32_t)*count);
    groups_tell(&round, explain);
    return code;
}

/* `rows`: more than there are. */
static int groups_rounds(struct groups *groups, struct scratch *scratch, size_t rows,
                         omendb_explain *explain)
{
    const size_t k = groups->asked->k;
    size_t wanted = GROUPS_FIRST(k), all, count = 0;
    int code;
    do {
        all = wanted + groups->taken_count;
        all = all < rows ? all : rows;
        groups_know_taken(groups);
        code = groups_round(groups, scratch, all, &count, explain);
        wanted = wanted < rows ? wanted * 2 : rows;
    } while (code == OMENDB_OK && count == all && groups->taken_count < k);
    return code;
}

/* ------------------------------------------------------------------ all of it */

static int groups_compare_taken(const void *left, const void *right)
{
    const struct search_hit *a = left, *b = right;
    return a->distance != b->distance ? (a->distance > b->distance) - (a->distance < b->distance)
                                      : (a->id > b->id) - (a->id < b->id);
}

static void groups_free(struct groups *groups)
{
    struct memory *memory = groups->memory;
    omendb_filter *filter = &groups->filter;
    memory_free(memory, groups->taken, groups->asked->k * sizeof *groups->taken);
    memory_free(memory, groups->taken_ids, groups->asked->k * sizeof *groups->taken_ids);
    memory_free(memory, groups->values, groups->value_room * sizeof *groups->values);
    memory_free(memory, groups->items, groups->item_room * sizeof *groups->items);
    memory_free(memory, groups->ids, groups->round_room * sizeof *groups->ids);
    memory_free(memory, groups->distances, groups->round_room * sizeof *groups->distances);
    memory_free(memory, groups->is_null, groups->round_room);
    memory_free(memory, groups->full, groups->full_room * sizeof *groups->full);
    memory_free(memory, filter->leaves, filter->leaf_capacity * sizeof *filter->leaves);
    memory_free(memory, filter->nodes, filter->node_capacity * sizeof *filter->nodes);
}

static void groups_begin(struct groups *groups, const struct search_request *request)
{
    *groups = (struct groups){.asked = request, .memory = &request->collection->db->memory};
    groups->subject = strcmp(request->group_by, "_key") == 0 ? FILTER_KEY : FILTER_FIELD;
    groups->name_size = (uint32_t)strlen(request->group_by);
    groups->name_hash = document_hash_name((const uint8_t *)request->group_by, groups->name_size);
}

OMENDB_INTERNAL int groups_run(const struct search_request *request, struct scratch *scratch,
                               uint64_t *ids, float *distances, size_t *count,
                               omendb_explain *explain)
{
    struct search_request terms = *request;
    struct groups groups;
    uint64_t largest;
    if (request->group_by == NULL || request->group_size >= request->k ||
        strcmp(request->group_by, "_id") == 0)
        return search_run(request, scratch, ids, distances, count, explain);
    const uint64_t rows = search_total_rows(request->version, &largest) + 1 +
                          (request->txn == NULL ? 0 : request->txn->write_count);
    *count = 0;
    terms.k = request->k < rows ? request->k : (size_t)rows;
    memory_begin_reading();
    groups_begin(&groups, &terms);
    groups.taken = memory_array(groups.memory, terms.k, sizeof *groups.taken);
    groups.taken_ids = memory_array(groups.memory, terms.k, sizeof *groups.taken_ids);
    int code = groups.taken == NULL || groups.taken_ids == NULL
                   ? OMENDB_NOMEM
                   : groups_rounds(&groups, scratch, (size_t)rows, explain);
    if (code == OMENDB_OK)
        sort_array(groups.taken, groups.taken_count, sizeof *groups.taken, groups_compare_taken);
    for (size_t i = 0; i < groups.taken_count && code == OMENDB_OK; i++) {
        ids[i] = groups.taken[i].id;
        if (distances != NULL)
            distances[i] = groups.taken[i].distance;
        *count = i + 1;
    }
    groups_free(&groups);
    memory_end_reading();
    return code;
}

#undef GROUPS_FIRST
#undef GROUPS_RUN
#undef GROUPS_NULL
