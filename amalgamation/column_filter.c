/* column_filter.c: see column_filter.h.
 *
 * Each leaf becomes ranges of ranks. What negates one is the ranges between them where every row
 * has one value at most; where rows have arrays it is asked row by row.
 *
 * A leaf about ids becomes ranges of places among the ascending ids, which are rows where those
 * ascend themselves. One about equal keys becomes the rows that the index of keys has for each:
 * that is by hashes, so it knows no order, and what lies before, behind or below a prefix is asked
 * row by row. Of a memtable the maps tell, of keys and of ids that are few; there is no more.
 *
 * How many rows can match follows from the leaves upwards: of a leaf the rows of its ranks, which
 * the column counts; of OR the sum; of AND the least of its parts. The rows of that part, and of
 * all parts below an OR, are listed by the columns, and are then asked for the rest. Where lists
 * tell of all leaves, and to list those costs less than to ask, AND and OR are taken of bits, 64
 * rows at a time, and nothing is left to ask. */
#include "column_filter.h"

#include "column_lists.h"
#include "database.h"
#include "format.h"

#include <string.h>

#define COLUMN_FILTER_GROUPS 4 /* that are open at a time where bits are taken together */
#define COLUMN_FILTER_ASK    6 /* nanoseconds, about, to ask of a row */
#define COLUMN_FILTER_WORDS  4 /* words a nanosecond, about, that are taken together */
#define COLUMN_FILTER_ASKED  4 /* rows that are asked as fast as one key or id is looked up */

/* ------------------------------------------------------------------ ranges */

static int column_filter_add_range(struct column_filter *plan, struct column_test *test,
                                   uint32_t low, uint32_t high)
{
    if (low >= high)
        return OMENDB_OK;
    struct column_range *last =
        test->range_count == 0 ? NULL : plan->ranges + plan->range_count - 1;
    if (last != NULL && last->high >= low) {
        last->high = last->high > high ? last->high : high;
        return OMENDB_OK;
    }
    if (plan->range_count == plan->range_capacity) {
        const size_t capacity = plan->range_capacity * 2 + 16;
        struct column_range *ranges =
            memory_resize(plan->memory, plan->ranges, plan->range_capacity * sizeof *ranges,
                          memory_multiply(capacity, sizeof *ranges));
        if (ranges == NULL)
            return OMENDB_NOMEM;
        plan->ranges = ranges;
        plan->range_capacity = capacity;
    }
    plan->ranges[plan->range_count++] = (struct column_range){low, high};
    test->range_count++;
    return OMENDB_OK;
}

static int column_filter_value_ranges(struct column_filter *plan, struct column_test *test,
                                      const struct filter_set *set)
{
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < set->value_count && code == OMENDB_OK; i++) {
        uint32_t low = 0, high = 0;
        code = column_bound(&test->column, &set->values[i], 0, &low);
        if (code == OMENDB_OK)
            code = column_bound(&test->column, &set->values[i], 1, &high);
        if (code == OMENDB_OK)
            code = column_filter_add_range(plan, test, low, high);
    }
    return code;
}

static int column_filter_set_ranges(struct column_filter *plan, struct column_test *test,
                                    const struct filter_set *set)
{
    int code = column_filter_value_ranges(plan, test, set);
    for (uint32_t i = 0; i < set->range_count && code == OMENDB_OK; i++) {
        const struct filter_range *range = &set->ranges[i];
        uint32_t low = 0, high = test->column.values;
        if (range->low.type != DOCUMENT_NULL)
            code = column_bound(&test->column, &range->low, range->low_open, &low);
        if (code == OMENDB_OK && range->high.type != DOCUMENT_NULL)
            code = column_bound(&test->column, &range->high, !range->high_open, &high);
        if (code == OMENDB_OK)
            code = column_filter_add_range(plan, test, low, high);
    }
    return code;
}

/* The ranks, or rows, or places, below `end` that are in none of the ranges. */
static int column_filter_complement(struct column_filter *plan, struct column_test *test,
                                    uint32_t end)
{
    const uint32_t first = test->first_range, count = test->range_count;
    uint32_t low = 0;
    int code = OMENDB_OK;
    test->first_range = (uint32_t)plan->range_count;
    test->range_count = 0;
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++) {
        const struct column_range range = plan->ranges[first + i];
        code = column_filter_add_range(plan, test, low, range.low);
        low = range.high;
    }
    return code == OMENDB_OK ? column_filter_add_range(plan, test, low, end) : code;
}

/* ------------------------------------------------------------------ leaves */

static void column_filter_fix(struct column_test *test, int answer, uint32_t rows)
{
    test->kind = COLUMN_TEST_FIXED;
    test->fixed = answer;
    test->most = answer ? rows : 0;
    test->listed = !answer;
}

static int column_filter_ranks(struct column_filter *plan, struct column_test *test,
                               const struct filter_leaf *leaf)
{
    const struct column *column = &test->column;
    uint64_t most = 0;
    test->kind = COLUMN_TEST_RANKS;
    int code = column_filter_set_ranges(plan, test, &leaf->set);
    test->negated = leaf->negated;
    test->null_matches = leaf->set.null_matches;
    if (code == OMENDB_OK && test->negated && column->listed == column->present &&
        (column->kind == COLUMN_DENSE || column->elements == column->present)) {
        code = column_filter_complement(plan, test, column->values);
        test->negated = 0;
    }
    for (uint32_t i = 0; i < test->range_count && code == OMENDB_OK; i++) {
        const struct column_range range = plan->ranges[test->first_range + i];
        const uint32_t begin = column_begin(column, range.low),
                       end = column_begin(column, range.high);
        most += end > begin ? end - begin : 0;
    }
    most = test->negated ? column->present : most;
    most += test->null_matches ? column->rows - column->present : 0;
    test->most = most < column->rows ? (uint32_t)most : column->rows;
    test->listed = !test->negated && !test->null_matches;
    return code;
}

/* ------------------------------------------------------------------ ids and keys */

static int column_filter_add_found(struct column_filter *plan, uint32_t row)
{
    if (row >= plan->rows)
        return OMENDB_OK;
    if (plan->found_count == plan->found_capacity) {
        const size_t capacity = plan->found_capacity * 2 + 16;
        uint64_t *found =
            memory_resize(plan->memory, plan->found, plan->found_capacity * sizeof *found,
                          memory_multiply(capacity, sizeof *found));
        if (found == NULL)
            return OMENDB_NOMEM;
        plan->found = found;
        plan->found_capacity = capacity;
    }
    plan->found[plan->found_count++] = row;
    return OMENDB_OK;
}

/* What was found becomes the ranges of the test. */
static int column_filter_take_found(struct column_filter *plan, struct column_test *test)
{
    int code = OMENDB_OK;
    if (plan->found_count > 1)
        sort_array(plan->found, plan->found_count, sizeof *plan->found, sort_compare_numbers);
    for (size_t i = 0; i < plan->found_count && code == OMENDB_OK; i++) {
        const uint32_t row = (uint32_t)plan->found[i];
        code = column_filter_add_range(plan, test, row, row + 1);
    }
    return code;
}

/* The ranges of the test are of all rows that match, or of their places. */
static void column_filter_list_ranges(const struct column_filter *plan, struct column_test *test,
                                      enum column_test_kind kind)
{
    test->kind = kind;
    test->most = 0;
    test->listed = 1;
    for (uint32_t i = 0; i < test->range_count; i++) {
        const struct column_range range = plan->ranges[test->first_range + i];
        test->most += range.high - range.low;
    }
}

/* The places of the ids. */
static int column_filter_place_ids(struct column_filter *plan, struct column_test *test,
                                   const struct filter_ids *ids)
{
    const struct part_info *info = &plan->segment->info;
    uint64_t low = 0, high = plan->rows;
    int code = OMENDB_OK;
    if (ids->last < info->smallest_id || ids->first > info->largest_id)
        return OMENDB_OK;
    if (ids->first > info->smallest_id)
        code = segment_first_place(plan->segment, ids->first, &low);
    if (code == OMENDB_OK && ids->last < info->largest_id)
        code = segment_first_place(plan->segment, ids->last + 1, &high);
    return code == OMENDB_OK ? column_filter_add_range(plan, test, (uint32_t)low, (uint32_t)high)
                             : code;
}

/* The rows of the ids in a memtable. */
static int column_filter_find_ids(struct column_filter *plan, const struct filter_ids *ids)
{
    int code = OMENDB_OK;
    for (uint64_t i = 0; i <= ids->last - ids->first && code == OMENDB_OK; i++) {
        for (uint32_t row = memtable_find(plan->memtable, ids->first + i);
             row != GRAPH_NO_ROW && code == OMENDB_OK; row = memtable_previous(plan->memtable, row))
            code = column_filter_add_found(plan, row);
    }
    return code;
}

/* Whether to look so many ids up costs less than to ask all rows: of a segment, each range of them;
 * of a memtable, each of them. */
static int column_filter_are_few(const struct column_filter *plan, const struct filter_set *set)
{
    uint64_t left = plan->rows / COLUMN_FILTER_ASKED;
    if (plan->segment != NULL)
        return set->id_count <= left;
    for (uint32_t i = 0; i < set->id_count; i++) {
        if (set->ids[i].last - set->ids[i].first >= left)
            return 0;
        left -= set->ids[i].last - set->ids[i].first + 1;
    }
    return 1;
}

static int column_filter_ids(struct column_filter *plan, const struct filter_leaf *leaf,
                             struct column_test *test)
{
    const struct filter_set *set = &leaf->set;
    const int by_place =
        plan->segment != NULL && (plan->segment->info.flags & SEGMENT_IDS_ASCEND) == 0;
    int code = OMENDB_OK;
    if (!column_filter_are_few(plan, set))
        return OMENDB_OK;
    for (uint32_t i = 0; i < set->id_count && code == OMENDB_OK; i++)
        code = plan->segment != NULL ? column_filter_place_ids(plan, test, &set->ids[i])
                                     : column_filter_find_ids(plan, &set->ids[i]);
    if (code == OMENDB_OK)
        code = column_filter_take_found(plan, test);
    if (code == OMENDB_OK && leaf->negated)
        code = column_filter_complement(plan, test, plan->rows);
    if (code == OMENDB_OK)
        column_filter_list_ranges(plan, test, by_place ? COLUMN_TEST_PLACES : COLUMN_TEST_ROWS);
    return code;
}

static int column_filter_find_key(struct column_filter *plan, const struct document_value *value)
{
    struct key_probe probe = {.key = value->text, .size = value->size};
    uint64_t cursor = 0;
    uint32_t row;
    int code;
    do {
        code = segment_find_key(plan->segment, &probe, &cursor, &row);
        if (code == OMENDB_OK && row != GRAPH_NO_ROW)
            code = column_filter_add_found(plan, row);
    } while (code == OMENDB_OK && row != GRAPH_NO_ROW);
    return code;
}

static int column_filter_find_memtable_key(struct column_filter *plan,
                                           const struct document_value *value)
{
    const struct memtable *memtable = plan->memtable;
    const uint64_t hash = hash_bytes(&memtable->seed, value->text, value->size);
    int code = OMENDB_OK;
    for (uint32_t row = memtable_find_key(memtable, value->text, value->size, hash);
         row != GRAPH_NO_ROW && code == OMENDB_OK;
         row = memtable_previous_key(memtable, value->text, value->size, row))
        code = column_filter_add_found(plan, row);
    return code;
}

static int column_filter_keys(struct column_filter *plan, const struct filter_leaf *leaf,
                              struct column_test *test)
{
    const struct filter_set *set = &leaf->set;
    int code = OMENDB_OK;
    if (plan->segment != NULL && plan->segment->key_hashes.length == 0) {
        column_filter_fix(test, set->null_matches, plan->rows);
        return OMENDB_OK;
    }
    if (leaf->negated || set->null_matches || set->range_count != 0 ||
        set->value_count > plan->rows / COLUMN_FILTER_ASKED)
        return OMENDB_OK;
    for (uint32_t i = 0; i < set->value_count && code == OMENDB_OK; i++) {
        const struct document_value *value = &set->values[i];
        if (value->type == DOCUMENT_TEXT)
            code = plan->segment != NULL ? column_filter_find_key(plan, value)
                                         : column_filter_find_memtable_key(plan, value);
    }
    if (code == OMENDB_OK)
        code = column_filter_take_found(plan, test);
    if (code == OMENDB_OK)
        column_filter_list_ranges(plan, test, COLUMN_TEST_ROWS);
    return code;
}

/* ------------------------------------------------------------------ making */

static int column_filter_field(struct column_filter *plan, const struct columns *columns,
                               const struct filter_leaf *leaf, struct column_test *test)
{
    const uint32_t rows = plan->rows;
    int found = 0;
    if (plan->segment->document_ends.length == 0) {
        column_filter_fix(test, leaf->set.null_matches, rows);
        return OMENDB_OK;
    }
    if (columns->range.length == 0)
        return OMENDB_OK;
    int code = columns_find(columns, leaf->name, leaf->name_size, &test->column, &found);
    if (code != OMENDB_OK)
        return code;
    if (!found && !columns->incomplete)
        column_filter_fix(test, leaf->set.null_matches, rows);
    return found && test->column.kind != COLUMN_NONE ? column_filter_ranks(plan, test, leaf)
                                                     : OMENDB_OK;
}

static int column_filter_leaf(struct column_filter *plan, const struct columns *columns,
                              const struct filter_leaf *leaf, struct column_test *test)
{
    *test = (struct column_test){.kind = COLUMN_TEST_DOCUMENT, .most = plan->rows};
    test->first_range = (uint32_t)plan->range_count;
    plan->found_count = 0;
    switch (leaf->subject) {
    case FILTER_CONSTANT:
        column_filter_fix(test, filter_leaf_matches(plan->filter, leaf, 0, NULL), plan->rows);
        return OMENDB_OK;
    case FILTER_ID:
        return column_filter_ids(plan, leaf, test);
    case FILTER_KEY:
        return column_filter_keys(plan, leaf, test);
    default:
        return plan->segment != NULL ? column_filter_field(plan, columns, leaf, test) : OMENDB_OK;
    }
}

/* ------------------------------------------------------------------ nodes */

static uint32_t column_filter_next_child(const omendb_filter *filter, uint32_t child)
{
    return filter->nodes[child].kind == FILTER_LEAF ? child + 1 : filter->nodes[child].end;
}

static void column_filter_bound_group(struct column_filter *plan, uint32_t group)
{
    const omendb_filter *filter = plan->filter;
    struct column_node *node = &plan->nodes[group];
    uint64_t sum = 0;
    uint32_t least = UINT32_MAX, child = group + 1;
    node->fewest = child;
    for (; child < filter->nodes[group].end; child = column_filter_next_child(filter, child)) {
        const uint32_t most = plan->nodes[child].most;
        sum += most;
        if (most < least) {
            least = most;
            node->fewest = child;
        }
    }
    sum = sum < UINT32_MAX ? sum : UINT32_MAX;
    node->most = filter->nodes[group].kind == FILTER_AND ? least : (uint32_t)sum;
}

/* From the last node to the first, as children come behind their parents; then back, to see which
 * leaves list the rows. */
static void column_filter_bound_nodes(struct column_filter *plan)
{
    const omendb_filter *filter = plan->filter;
    for (uint32_t i = (uint32_t)filter->node_count; i-- > 0;) {
        const struct filter_node *node = &filter->nodes[i];
        plan->nodes[i] = (struct column_node){UINT32_MAX, 0, i == 0};
        if (node->kind != FILTER_LEAF)
            column_filter_bound_group(plan, i);
        else if (plan->tests[node->leaf].listed)
            plan->nodes[i].most = plan->tests[node->leaf].most;
    }
    for (uint32_t i = 0; i < filter->node_count; i++) {
        const struct filter_node *node = &filter->nodes[i];
        if (!plan->nodes[i].lists || node->kind == FILTER_LEAF)
            continue;
        for (uint32_t child = i + 1; child < node->end;
             child = column_filter_next_child(filter, child))
            plan->nodes[child].lists = node->kind == FILTER_OR || child == plan->nodes[i].fewest;
    }
}

static int column_filter_reserve(struct column_filter *plan, const omendb_filter *filter)
{
    struct memory *memory = plan->memory;
    plan->range_count = 0;
    if (filter->leaf_count > plan->test_capacity) {
        memory_free(memory, plan->tests, plan->test_capacity * sizeof *plan->tests);
        plan->tests = memory_array(memory, filter->leaf_count, sizeof *plan->tests);
        plan->test_capacity = plan->tests == NULL ? 0 : filter->leaf_count;
        if (plan->tests == NULL)
            return OMENDB_NOMEM;
    }
    if (filter->node_count > plan->node_capacity) {
        memory_free(memory, plan->nodes, plan->node_capacity * sizeof *plan->nodes);
        plan->nodes = memory_array(memory, filter->node_count, sizeof *plan->nodes);
        plan->node_capacity = plan->nodes == NULL ? 0 : filter->node_count;
        if (plan->nodes == NULL)
            return OMENDB_NOMEM;
    }
    return OMENDB_OK;
}

/* Of the plan, whose segment or memtable is set. columns: of the segment. */
static int column_filter_make_tests(struct column_filter *plan, const struct columns *columns)
{
    const omendb_filter *filter = plan->filter;
    int code = column_filter_reserve(plan, filter);
    plan->code = OMENDB_OK;
    for (size_t i = 0; i < filter->leaf_count && code == OMENDB_OK; i++)
        code = column_filter_leaf(plan, columns, &filter->leaves[i], &plan->tests[i]);
    if (code == OMENDB_OK)
        column_filter_bound_nodes(plan);
    return code;
}

OMENDB_INTERNAL int column_filter_make(struct column_filter *plan, struct memory *memory,
                                       const omendb_filter *filter, struct segment *segment)
{
    struct columns columns;
    plan->memory = memory;
    plan->filter = filter;
    plan->segment = segment;
    plan->memtable = NULL;
    plan->rows = segment->info.rows;
    int code = columns_open(&segment->file->file->blocks, segment->columns, plan->rows, &columns);
    return code == OMENDB_OK ? column_filter_make_tests(plan, &columns) : code;
}

OMENDB_INTERNAL int column_filter_make_memtable(struct column_filter *plan, struct memory *memory,
                                                const omendb_filter *filter,
                                                const struct memtable *memtable, uint32_t rows)
{
    plan->memory = memory;
    plan->filter = filter;
    plan->segment = NULL;
    plan->memtable = memtable;
    plan->rows = rows;
    return column_filter_make_tests(plan, NULL);
}

OMENDB_INTERNAL size_t column_filter_bytes(const struct column_filter *plan)
{
    return plan->test_capacity * sizeof *plan->tests + plan->node_capacity * sizeof *plan->nodes +
           plan->range_capacity * sizeof *plan->ranges + plan->found_capacity * sizeof *plan->found;
}

OMENDB_INTERNAL void column_filter_destroy(struct column_filter *plan)
{
    struct memory *memory = plan->memory;
    if (memory == NULL)
        return;
    memory_free(memory, plan->tests, plan->test_capacity * sizeof *plan->tests);
    memory_free(memory, plan->nodes, plan->node_capacity * sizeof *plan->nodes);
    memory_free(memory, plan->ranges, plan->range_capacity * sizeof *plan->ranges);
    memory_free(memory, plan->bits, plan->word_capacity * sizeof *plan->bits);
    memory_free(memory, plan->found, plan->found_capacity * sizeof *plan->found);
    memset(plan, 0, sizeof *plan);
}

OMENDB_INTERNAL uint32_t column_filter_most(const struct column_filter *plan)
{
    return plan->filter->node_count == 0 ? UINT32_MAX : plan->nodes[0].most;
}

/* ------------------------------------------------------------------ rows */

static int column_filter_in_ranges(const struct column_filter *plan, const struct column_test *test,
                                   uint32_t rank)
{
    const struct column_range *ranges = plan->ranges + test->first_range;
    uint32_t low = 0, high = test->range_count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (ranges[middle].high <= rank)
            low = middle + 1;
        else
            high = middle;
    }
    return low < test->range_count && ranges[low].low <= rank;
}

static int column_filter_row_ranks(const struct column_filter *plan, const struct column_test *test,
                                   uint32_t row)
{
    uint32_t first, last;
    column_elements(&test->column, row, &first, &last);
    if (first == last)
        return test->null_matches;
    for (uint32_t i = first; i < last; i++) {
        if (column_filter_in_ranges(plan, test, column_rank(&test->column, i)))
            return !test->negated;
    }
    return test->negated;
}

static int column_filter_row_document(struct column_filter *plan, const struct filter_leaf *leaf,
                                      uint32_t row)
{
    const uint8_t *document = NULL;
    uint64_t id = 0;
    int code = leaf->subject == FILTER_ID ? segment_id(plan->segment, row, &id)
                                          : segment_document(plan->segment, row, &document);
    if (code == OMENDB_OK)
        return filter_leaf_matches(plan->filter, leaf, id, document);
    if (plan->code == OMENDB_OK)
        plan->code = code;
    return 1;
}

OMENDB_INTERNAL int column_filter_matches(struct column_filter *plan, uint32_t row)
{
    const omendb_filter *filter = plan->filter;
    uint32_t next = 0;
    while (next < FILTER_MISS) {
        const struct column_test *test = &plan->tests[next];
        const struct filter_leaf *leaf = &filter->leaves[next];
        const int matches =
            test->kind == COLUMN_TEST_RANKS   ? column_filter_row_ranks(plan, test, row)
            : test->kind == COLUMN_TEST_ROWS  ? column_filter_in_ranges(plan, test, row)
            : test->kind == COLUMN_TEST_FIXED ? test->fixed
                                              : column_filter_row_document(plan, leaf, row);
        next = matches ? leaf->if_true : leaf->if_false;
    }
    return next == FILTER_MATCH;
}

/* What lies at the places; where that cannot be told, plan->code says why. */
static void column_filter_list_places(struct column_filter *plan, struct column_range range,
                                      uint64_t *bits, uint32_t rows)
{
    struct block_file *file = &plan->segment->file->file->blocks;
    const uint64_t offset = plan->segment->sorted_rows.offset + range.low * sizeof(uint32_t);
    int code = blocks_touch(file, offset, (range.high - range.low) * sizeof(uint32_t));
    for (uint32_t i = 0; i < range.high - range.low && code == OMENDB_OK; i++) {
        uint32_t row = format_get32(file->base + offset + i * sizeof row);
        uint64_t id;
        if (row >= plan->rows)
            code = segment_at_place(plan->segment, range.low + i, &id, &row);
        else if (row < rows)
            bits[row / 64] |= UINT64_C(1) << (row % 64);
    }
    if (plan->code == OMENDB_OK)
        plan->code = code;
}

static void column_filter_list_leaf(struct column_filter *plan, const struct column_test *test,
                                    uint64_t *bits, uint32_t rows)
{
    for (uint32_t i = 0; i < test->range_count; i++) {
        const struct column_range range = plan->ranges[test->first_range + i];
        if (test->kind == COLUMN_TEST_RANKS)
            column_list(&test->column, range.low, range.high, bits, rows);
        else if (test->kind == COLUMN_TEST_ROWS)
            column_list_run(bits, range.low, range.high - 1, rows);
        else
            column_filter_list_places(plan, range, bits, rows);
    }
}

static uint64_t column_filter_list_cost(const struct column_filter *plan,
                                        const struct column_test *test)
{
    uint64_t cost = 0;
    for (uint32_t i = 0; i < test->range_count; i++) {
        const struct column_range range = plan->ranges[test->first_range + i];
        cost += test->kind == COLUMN_TEST_RANKS
                    ? column_list_cost(&test->column, range.low, range.high)
                : test->kind == COLUMN_TEST_ROWS ? (range.high - range.low) / 64 + 1
                                                 : range.high - range.low;
    }
    return cost;
}

/* How many groups are open at once; 0: a single leaf. */
static uint32_t column_filter_depth(const omendb_filter *filter)
{
    uint32_t depth = 0, most = 0, ends[COLUMN_FILTER_GROUPS];
    for (uint32_t i = 0; i < filter->node_count; i++) {
        while (depth > 0 && ends[depth - 1] == i)
            depth--;
        if (filter->nodes[i].kind == FILTER_LEAF)
            continue;
        if (depth == COLUMN_FILTER_GROUPS)
            return UINT32_MAX;
        ends[depth++] = filter->nodes[i].end;
        most = depth > most ? depth : most;
    }
    return most;
}

/* Whether the lists of all leaves are there, and cost less than to ask the rows that some of them
 * list. */
static int column_filter_is_exact(const struct column_filter *plan, size_t words, uint32_t depth)
{
    const omendb_filter *filter = plan->filter;
    uint64_t more = depth == 0 ? 0 : words * filter->node_count / COLUMN_FILTER_WORDS;
    if (depth == UINT32_MAX || plan->nodes[0].most == UINT32_MAX)
        return 0;
    const uint64_t asking = (uint64_t)plan->nodes[0].most * COLUMN_FILTER_ASK;
    for (uint32_t i = 0; i < filter->node_count; i++) {
        const struct filter_node *node = &filter->nodes[i];
        if (node->kind != FILTER_LEAF)
            continue;
        if (!plan->tests[node->leaf].listed)
            return 0;
        if (!plan->nodes[i].lists)
            more += column_filter_list_cost(plan, &plan->tests[node->leaf]);
        if (more > asking)
            return 0;
    }
    return 1;
}

/* The groups that are open, and the bits of each. */
struct column_groups {
    struct column_filter *plan;
    size_t words;
    uint32_t rows, depth;
    const struct filter_node *open[COLUMN_FILTER_GROUPS];
    int begun[COLUMN_FILTER_GROUPS]; /* 1: it has the bits of its first child */
};

static uint64_t *column_groups_bits(const struct column_groups *groups, uint32_t level)
{
    return groups->plan->bits + level * groups->words;
}

/* Whether the innermost open group keeps only what its next child has, too. */
static int column_groups_narrow(const struct column_groups *groups)
{
    return groups->depth != 0 && groups->begun[groups->depth - 1] &&
           groups->open[groups->depth - 1]->kind == FILTER_AND;
}

/* The innermost open group takes a child in, whose bits are those of the next level. */
static void column_groups_take(struct column_groups *groups)
{
    uint64_t *own = column_groups_bits(groups, groups->depth - 1);
    const uint64_t *bits = column_groups_bits(groups, groups->depth);
    const int narrow = column_groups_narrow(groups);
    groups->begun[groups->depth - 1] = 1;
    for (size_t i = 0; i < groups->words && narrow; i++)
        own[i] &= bits[i];
    for (size_t i = 0; i < groups->words && !narrow; i++)
        own[i] |= bits[i];
}

static void column_groups_leaf(struct column_groups *groups, const struct column_test *test)
{
    const int narrow = column_groups_narrow(groups);
    const uint32_t level = groups->depth == 0 || narrow ? groups->depth : groups->depth - 1;
    uint64_t *bits = column_groups_bits(groups, level);
    if (narrow)
        memset(bits, 0, groups->words * sizeof *bits);
    column_filter_list_leaf(groups->plan, test, bits, groups->rows);
    if (narrow)
        column_groups_take(groups);
    else if (groups->depth != 0)
        groups->begun[level] = 1;
}

static void column_groups_open(struct column_groups *groups, const struct filter_node *node)
{
    const uint32_t level = groups->depth++;
    memset(column_groups_bits(groups, level), 0, groups->words * sizeof(uint64_t));
    groups->open[level] = node;
    groups->begun[level] = 0;
}

static void column_groups_close(struct column_groups *groups)
{
    groups->depth--;
    if (groups->depth != 0)
        column_groups_take(groups);
}

/* All rows that match, into the first bits of the plan, which are 0. */
static void column_filter_list_exactly(struct column_filter *plan, uint32_t rows, size_t words)
{
    const omendb_filter *filter = plan->filter;
    struct column_groups groups = {.plan = plan, .words = words, .rows = rows};
    for (uint32_t i = 0; i < filter->node_count; i++) {
        while (groups.depth > 0 && groups.open[groups.depth - 1]->end == i)
            column_groups_close(&groups);
        if (filter->nodes[i].kind == FILTER_LEAF)
            column_groups_leaf(&groups, &plan->tests[filter->nodes[i].leaf]);
        else
            column_groups_open(&groups, &filter->nodes[i]);
    }
    while (groups.depth > 0)
        column_groups_close(&groups);
}

/* Rows that may match: of each AND those of one child. */
static void column_filter_list_some(struct column_filter *plan, uint32_t rows)
{
    for (size_t i = 0; i < plan->filter->node_count; i++) {
        const struct filter_node *node = &plan->filter->nodes[i];
        if (plan->nodes[i].lists && node->kind == FILTER_LEAF)
            column_filter_list_leaf(plan, &plan->tests[node->leaf], plan->bits, rows);
    }
}

static int column_filter_reserve_bits(struct column_filter *plan, size_t words)
{
    if (words <= plan->word_capacity)
        return OMENDB_OK;
    memory_free(plan->memory, plan->bits, plan->word_capacity * sizeof *plan->bits);
    plan->bits = memory_array(plan->memory, words, sizeof *plan->bits);
    plan->word_capacity = plan->bits == NULL ? 0 : words;
    return plan->bits == NULL ? OMENDB_NOMEM : OMENDB_OK;
}

OMENDB_INTERNAL int column_filter_lists_exactly(const struct column_filter *plan, uint32_t rows)
{
    return column_filter_is_exact(plan, (size_t)rows / 64 + 1, column_filter_depth(plan->filter));
}

OMENDB_INTERNAL int column_filter_list(struct column_filter *plan, uint32_t rows, uint64_t **bits,
                                       int *exact)
{
    const size_t words = (size_t)rows / 64 + 1;
    const uint32_t depth = column_filter_depth(plan->filter);
    *exact = column_filter_is_exact(plan, words, depth);
    int code = column_filter_reserve_bits(plan, *exact ? words * (depth + 1) : words);
    if (code != OMENDB_OK)
        return code;
    memset(plan->bits, 0, words * sizeof *plan->bits);
    if (*exact)
        column_filter_list_exactly(plan, rows, words);
    else
        column_filter_list_some(plan, rows);
    plan->bits[rows / 64] &= (UINT64_C(1) << (rows % 64)) - 1;
    *bits = plan->bits;
    return plan->code;
}

#undef COLUMN_FILTER_GROUPS
#undef COLUMN_FILTER_ASK
#undef COLUMN_FILTER_WORDS
#undef COLUMN_FILTER_ASKED
