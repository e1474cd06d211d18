/* column_filter.c: see column_filter.h.
 *
 * Each leaf becomes ranges of ranks. What negates one is the ranges between them where every row
 * has one value at most; where rows have arrays it is asked row by row.
 *
 * How many rows can match follows from the leaves upwards: of a leaf the rows of its ranks, which
 * the column counts; of OR the sum; of AND the least of its parts. The rows of that part, and of
 * all parts below an OR, are listed by the columns, and are then asked for the rest. */
#include "column_filter.h"

#include "database.h"

#include <string.h>

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

/* The ranks that are in none of the ranges. */
static int column_filter_complement(struct column_filter *plan, struct column_test *test)
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
    return code == OMENDB_OK ? column_filter_add_range(plan, test, low, test->column.values) : code;
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
    test->first_range = (uint32_t)plan->range_count;
    int code = column_filter_set_ranges(plan, test, &leaf->set);
    test->negated = leaf->negated;
    test->null_matches = leaf->set.null_matches;
    if (code == OMENDB_OK && test->negated && column->posting_count == column->present &&
        (column->kind == COLUMN_DENSE || column->elements == column->present)) {
        code = column_filter_complement(plan, test);
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

static int column_filter_leaf(struct column_filter *plan, const struct columns *columns,
                              const struct filter_leaf *leaf, struct column_test *test)
{
    const uint32_t rows = plan->segment->info.rows;
    int found = 0;
    *test = (struct column_test){.kind = COLUMN_TEST_DOCUMENT, .most = rows};
    if (leaf->subject == FILTER_CONSTANT) {
        column_filter_fix(test, filter_leaf_matches(plan->filter, leaf, 0, NULL), rows);
        return OMENDB_OK;
    }
    if (leaf->subject != FILTER_FIELD)
        return OMENDB_OK;
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

OMENDB_INTERNAL int column_filter_make(struct column_filter *plan, struct memory *memory,
                                       const omendb_filter *filter, const struct segment *segment)
{
    struct columns columns;
    plan->memory = memory;
    plan->filter = filter;
    plan->segment = segment;
    plan->code = OMENDB_OK;
    int code = column_filter_reserve(plan, filter);
    if (code == OMENDB_OK)
        code = columns_open(&segment->file->file->blocks, segment->columns, segment->info.rows,
                            &columns);
    for (size_t i = 0; i < filter->leaf_count && code == OMENDB_OK; i++)
        code = column_filter_leaf(plan, &columns, &filter->leaves[i], &plan->tests[i]);
    if (code == OMENDB_OK)
        column_filter_bound_nodes(plan);
    return code;
}

OMENDB_INTERNAL size_t column_filter_bytes(const struct column_filter *plan)
{
    return plan->test_capacity * sizeof *plan->tests + plan->node_capacity * sizeof *plan->nodes +
           plan->range_capacity * sizeof *plan->ranges;
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
            : test->kind == COLUMN_TEST_FIXED ? test->fixed
                                              : column_filter_row_document(plan, leaf, row);
        next = matches ? leaf->if_true : leaf->if_false;
    }
    return next == FILTER_MATCH;
}

static void column_filter_list_leaf(const struct column_filter *plan,
                                    const struct column_test *test, uint64_t *bits, uint32_t rows)
{
    const struct column *column = &test->column;
    for (uint32_t i = 0; i < test->range_count; i++) {
        const struct column_range range = plan->ranges[test->first_range + i];
        const uint32_t end = column_begin(column, range.high);
        for (uint32_t at = column_begin(column, range.low); at < end; at++) {
            uint32_t row;
            memcpy(&row, column->postings + (size_t)at * sizeof row, sizeof row);
            if (row < rows)
                bits[row / 64] |= UINT64_C(1) << (row % 64);
        }
    }
}

OMENDB_INTERNAL int column_filter_list(struct column_filter *plan, uint32_t rows, uint64_t **bits)
{
    const size_t words = (size_t)rows / 64 + 1;
    if (words > plan->word_capacity) {
        memory_free(plan->memory, plan->bits, plan->word_capacity * sizeof *plan->bits);
        plan->bits = memory_array(plan->memory, words, sizeof *plan->bits);
        plan->word_capacity = plan->bits == NULL ? 0 : words;
        if (plan->bits == NULL)
            return OMENDB_NOMEM;
    }
    memset(plan->bits, 0, words * sizeof *plan->bits);
    for (size_t i = 0; i < plan->filter->node_count; i++) {
        const struct filter_node *node = &plan->filter->nodes[i];
        if (plan->nodes[i].lists && node->kind == FILTER_LEAF)
            column_filter_list_leaf(plan, &plan->tests[node->leaf], plan->bits, rows);
    }
    *bits = plan->bits;
    return OMENDB_OK;
}
