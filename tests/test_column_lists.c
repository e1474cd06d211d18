/* test_column_lists.c: the rows that have each value of a column, packed or not, are those whose
 * ranks say so; what a filter makes of the lists is what it says of each row; and lists that lie
 * neither leave memory nor take for ever. */
#include "internals.h"

#include "amalgamation/column_lists.h"

#include "support.h"
#include "test.h"

#define LISTS_ROWS  140000 /* three packs of 65,536, the last one short */
#define LISTS_WORDS (LISTS_ROWS / 64 + 1)
#define LISTS_DIM   1

static struct {
    char path[4352];
    omendb *db;
    omendb_collection *docs;
    struct version *version;
    struct segment *segment;
    struct columns columns;
} lists;

/* Few values and many, in order and not, of few rows and of most, of both, arrays, nulls. */
static void lists_write(struct support_random *random, uint64_t row, char *json)
{
    char *at = json;
    at += sprintf(at, "{\"half\":%s", support_below(random, 2) ? "true" : "false");
    at += sprintf(at, ",\"ten\":%d", (int)support_below(random, 10));
    at += sprintf(at, ",\"thousand\":%d", (int)support_below(random, 1000));
    at += sprintf(at, ",\"order\":%d", (int)(row / 3000));
    at += sprintf(at, ",\"row\":%d", (int)row);
    at += sprintf(at, ",\"mixed\":%d",
                  support_below(random, 2) ? (int)row : (int)support_below(random, 5) * 30000);
    if (support_below(random, 20) == 0)
        at += sprintf(at, ",\"rare\":%d", (int)support_below(random, 3));
    if (row % 1000 < 600)
        at += sprintf(at, ",\"part\":\"%s\"", row % 1000 < 500 ? "long" : "short");
    if (support_below(random, 3) == 0)
        at += sprintf(at, ",\"tags\":[%s]",
                      support_below(random, 4) == 0 ? "" : "\"a\",\"b\",\"a\",\"c\"");
    sprintf(at, "}");
}

static void lists_begin(void)
{
    static const float vector[LISTS_DIM];
    struct support_random random = {11};
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_record record = OMENDB_RECORD_INIT;
    omendb_txn *txn;
    uint64_t commit;
    char json[512];
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    schema.dim = LISTS_DIM;
    schema.M = 2;
    schema.ef_construction = 8;
    snprintf(lists.path, sizeof lists.path, "%s", support_path("lists"));
    support_must(omendb_open(lists.path, &options, &lists.db));
    support_must(omendb_collection_create(lists.db, "docs", &schema, &lists.docs));
    support_must(omendb_txn_begin(lists.db, OMENDB_READ_WRITE, &txn));
    record.vector = vector;
    record.metadata = json;
    for (uint64_t row = 0; row < LISTS_ROWS; row++) {
        lists_write(&random, row, json);
        record.id = row;
        support_must(omendb_put(lists.docs, txn, &record, NULL));
    }
    support_must(omendb_txn_commit(txn));
    support_must(omendb_checkpoint(lists.db));
    lists.version = version_acquire_newest(lists.docs->collection, &commit);
    lists.segment = lists.version->segments[0];
    support_must(columns_open(&lists.segment->file->file->blocks, lists.segment->columns,
                              lists.segment->info.rows, &lists.columns));
}

static int lists_find(const char *name, struct column *column)
{
    int found = 0;
    support_must(columns_find(&lists.columns, (const uint8_t *)name, (uint32_t)strlen(name), column,
                              &found));
    return found && column->kind != COLUMN_NONE;
}

/* By the ranks of the row. */
static int lists_row_has(const struct column *column, uint32_t row, uint32_t low, uint32_t high)
{
    uint32_t first, last;
    column_elements(column, row, &first, &last);
    for (uint32_t i = first; i < last; i++) {
        const uint32_t rank = column_rank(column, i);
        if (rank < column->values && rank >= low && rank < high)
            return 1;
    }
    return 0;
}

static int lists_are_right(const struct column *column, uint32_t low, uint32_t high, uint32_t rows)
{
    static uint64_t bits[LISTS_WORDS + 1];
    memset(bits, 0, sizeof bits);
    column_list(column, low, high, bits, rows);
    for (uint32_t row = 0; row < rows; row++) {
        if ((bits[row / 64] >> (row % 64) & 1) != (unsigned)lists_row_has(column, row, low, high))
            return 0;
    }
    for (uint32_t word = rows / 64 + 1; word <= LISTS_WORDS; word++) {
        if (bits[word] != 0)
            return 0;
    }
    return 1;
}

static const char *const lists_names[] = {"half",  "ten",  "thousand", "order", "row",
                                          "mixed", "rare", "part",     "tags"};

TEST(ranges_of_ranks_list_the_rows_whose_ranks_say_so)
{
    struct support_random random = {3};
    lists_begin();
    CHECK(lists.version->segment_count == 1 && lists.segment->info.rows == LISTS_ROWS);
    for (size_t i = 0; i < sizeof lists_names / sizeof lists_names[0]; i++) {
        struct column column;
        CHECK(lists_find(lists_names[i], &column));
        CHECK(lists_are_right(&column, 0, column.values, LISTS_ROWS));
        for (int turn = 0; turn < 12; turn++) {
            const uint32_t low = (uint32_t)support_below(&random, column.values),
                           high = low + 1 + (uint32_t)support_below(&random, column.values - low);
            const uint32_t rows = (uint32_t)support_below(&random, LISTS_ROWS + 1);
            CHECK(lists_are_right(&column, low, turn % 2 ? high : low + 1,
                                  turn % 3 ? LISTS_ROWS : rows));
        }
    }
    CHECK_EQ_INT(support_check(lists.db), OMENDB_OK);
}

/* Bytes of lists, in hundredths a row. */
static uint64_t lists_bytes(const char *name)
{
    struct column column;
    if (!lists_find(name, &column))
        return UINT64_MAX;
    return (column.plain_count * UINT64_C(4) + column.packed_count * UINT64_C(12) +
            column.pack_count * UINT64_C(12) + column.short_count * UINT64_C(2)) *
           100 / LISTS_ROWS;
}

TEST(values_of_many_rows_take_less_than_their_rows_and_others_no_more)
{
    CHECK(lists_bytes("half") <= 26);
    CHECK(lists_bytes("ten") <= 127);
    CHECK(lists_bytes("thousand") <= 235);
    CHECK(lists_bytes("order") <= 2);
    CHECK(lists_bytes("row") == 400);
    CHECK(lists_bytes("part") <= 3);
}

/* ------------------------------------------------------------------------------------------------
 * filters */

/* Whether the listed rows are those that match, or have them all where they need not be exact. */
static int lists_filter_is_right(const char *text, int wanted)
{
    struct column_filter plan = {0};
    omendb_filter *filter;
    uint64_t *bits;
    int exact = 0, right = 1;
    support_must(omendb_filter_compile(lists.db, text, &filter));
    support_must(column_filter_make(&plan, &lists.db->memory, filter, lists.segment));
    support_must(column_filter_list(&plan, LISTS_ROWS, &bits, &exact));
    for (uint32_t row = 0; row < LISTS_ROWS; row++) {
        const int listed = (int)(bits[row / 64] >> (row % 64) & 1),
                  matches = column_filter_matches(&plan, row);
        right &= exact ? listed == matches : listed || !matches || plan.nodes[0].most == UINT32_MAX;
    }
    column_filter_destroy(&plan);
    omendb_filter_free(filter);
    if (exact != wanted)
        fprintf(stderr, "    %s: exact %d\n", text, exact);
    return right && exact == wanted;
}

TEST(and_and_or_of_lists_are_the_rows_that_match)
{
    CHECK(lists_filter_is_right("half = true", 1));
    CHECK(lists_filter_is_right("row = 77", 1));
    CHECK(lists_filter_is_right("ten IN (1, 5, 7) AND half = false", 1));
    CHECK(lists_filter_is_right("ten = 3 OR order < 9 OR part = 'short'", 1));
    CHECK(lists_filter_is_right("(ten = 3 OR order < 9) AND (half = true OR thousand < 300)", 1));
    CHECK(lists_filter_is_right("(ten = 3 AND half = true) OR (ten = 4 AND half = false)", 1));
    CHECK(lists_filter_is_right("half = true AND (ten = 3 OR (ten < 9 AND order > 5))", 1));
    CHECK(lists_filter_is_right("tags = 'b' AND ten < 5", 1));
    CHECK(lists_filter_is_right("nothing = 1 OR ten < 5", 1));
    CHECK(lists_filter_is_right("NOT (ten = 3) AND half = true", 1));
}

TEST(what_lists_do_not_tell_or_tell_too_dearly_is_asked_row_by_row)
{
    CHECK(lists_filter_is_right("row = 77 AND half = true", 0));
    CHECK(lists_filter_is_right("rare IS NULL AND half = true", 0));
    CHECK(lists_filter_is_right("NOT (tags = 'b')", 0));
    CHECK(lists_filter_is_right("half = true AND (ten < 9 OR (order > 5 AND (thousand < 900 OR "
                                "(ten = 9 AND (half = false OR order = 1)))))",
                                0));
}

TEST(a_filter_counts_the_same_whatever_way_it_goes)
{
    uint64_t listed = 0, asked = 0;
    omendb_filter *filter;
    support_must(omendb_filter_compile(lists.db, "ten < 5 AND half = true", &filter));
    CHECK_EQ_INT(omendb_count_matching(lists.docs, NULL, filter, NULL, NULL, &listed), OMENDB_OK);
    omendb_filter_free(filter);
    support_must(
        omendb_filter_compile(lists.db, "ten < 5 AND half = true AND _key IS NULL", &filter));
    CHECK_EQ_INT(omendb_count_matching(lists.docs, NULL, filter, NULL, NULL, &asked), OMENDB_OK);
    omendb_filter_free(filter);
    CHECK_EQ_INT(listed, asked);
    CHECK(listed > LISTS_ROWS / 5);
    version_release(lists.version);
    omendb_collection_close(lists.docs);
    support_must(omendb_close(lists.db));
    support_remove(lists.path);
}

/* ------------------------------------------------------------------------------------------------
 * lies */

static uint32_t lists_lie(struct support_random *random)
{
    static const uint32_t lies[] = {0, 1, 2, 3, 63, 64, 65535, 65536, UINT32_MAX};
    return support_below(random, 2) ? lies[support_below(random, 9)]
                                    : (uint32_t)support_below(random, 300);
}

/* Arrays of their exact sizes, so that a sanitizer sees what lies behind them. */
static uint8_t *lists_lies(struct support_random *random, size_t count, size_t size)
{
    uint8_t *bytes = malloc(count * size + 1);
    if (bytes == NULL)
        abort();
    for (size_t i = 0; i < count * size; i += sizeof(uint32_t)) {
        const uint32_t lie = lists_lie(random);
        memcpy(bytes + i, &lie, count * size - i < sizeof lie ? count * size - i : sizeof lie);
    }
    return bytes;
}

TEST(lists_that_lie_stay_inside_of_the_bits)
{
    struct support_random random = {9};
    for (int turn = 0; turn < 3000; turn++) {
        const uint32_t rows = (uint32_t)support_below(&random, 1000), values = 8;
        const size_t words = rows / 64 + 1;
        struct column column = {.kind = COLUMN_DENSE, .values = values, .rows = rows};
        column.plain_count = (uint32_t)support_below(&random, 50);
        column.packed_count = (uint32_t)support_below(&random, values);
        column.pack_count = (uint32_t)support_below(&random, 12);
        column.short_count = (uint32_t)support_below(&random, 300);
        uint8_t *counts = lists_lies(&random, values + 1, sizeof(uint32_t)),
                *plain = lists_lies(&random, column.plain_count, sizeof(uint32_t)),
                *packed = lists_lies(&random, column.packed_count + 1, COLUMN_PACKED_BYTES),
                *packs = lists_lies(&random, column.pack_count, COLUMN_PACK_BYTES),
                *shorts = lists_lies(&random, column.short_count, sizeof(uint16_t));
        uint64_t *bits = calloc(words, sizeof *bits);
        for (uint32_t i = 0; i < column.pack_count; i++) {
            const uint16_t part = (uint16_t)support_below(&random, 2),
                           kind = (uint16_t)support_below(&random, 5);
            memcpy(packs + i * COLUMN_PACK_BYTES + COLUMN_PACK_PART, &part, sizeof part);
            memcpy(packs + i * COLUMN_PACK_BYTES + COLUMN_PACK_KIND, &kind, sizeof kind);
        }
        column.counts = counts;
        column.plain = plain;
        column.packed = packed;
        column.packs = packs;
        column.shorts = shorts;
        column.listed = (uint32_t)support_below(&random, 300);
        CHECK(bits != NULL);
        for (uint32_t rank = 0; rank < values; rank++) {
            struct column_walk walk;
            uint32_t row, found = 0;
            column_list(&column, rank, values - rank / 2, bits, rows);
            (void)column_list_cost(&column, rank, values);
            column_walk_begin(&column, rank, &walk);
            while (column_walk_next(&column, &walk, &row))
                found++;
            CHECK(found <= column.plain_count + column.pack_count * UINT32_C(65536));
        }
        free(counts);
        free(plain);
        free(packed);
        free(packs);
        free(shorts);
        free(bits);
    }
}

TEST_MAIN(ranges_of_ranks_list_the_rows_whose_ranks_say_so,
          values_of_many_rows_take_less_than_their_rows_and_others_no_more,
          and_and_or_of_lists_are_the_rows_that_match,
          what_lists_do_not_tell_or_tell_too_dearly_is_asked_row_by_row,
          a_filter_counts_the_same_whatever_way_it_goes, lists_that_lie_stay_inside_of_the_bits)
