/* test_filters.c: what filters mean, in text and in JSON, compared with the plainest evaluation
 * (filter_model.h) and with SQLite where that is installed; what they refuse, and how they say so;
 * parameters; and memory that lacks. */
#include "internals.h"

#include <dlfcn.h>

#include "failing.h"
#include "filter_model.h"
#include "test.h"

static struct memory filters_memory;

/* ------------------------------------------------------------------------------------------------
 * helpers */

static void filters_begin(void)
{
    memory_init(&filters_memory, NULL, 0);
}

static uint8_t *filters_document(const char *key, const char *json, size_t *size)
{
    uint8_t *document = NULL;
    support_must(document_create(&filters_memory, key, key == NULL ? 0 : strlen(key), json,
                                 json == NULL ? 0 : strlen(json), &document, size));
    return document;
}

/* 1 or 0; -1: it is no filter. The record has id 7 and the key "seven". */
static int filters_hold(const char *text, const char *json)
{
    omendb_filter *filter = NULL;
    size_t size;
    if (filter_compile(&filters_memory, text, &filter) != OMENDB_OK) {
        fprintf(stderr, "%s\n%s\n", text, omendb_errmsg());
        return -1;
    }
    uint8_t *document = filters_document("seven", json, &size);
    const int holds = filter_matches(filter, 7, document);
    memory_free(&filters_memory, document, size);
    filter_free(filter);
    return holds;
}

struct filters_case {
    const char *text;
    int holds;
};

static int filters_all_hold(const char *json, const struct filters_case *cases, size_t count)
{
    int good = 1;
    filters_begin();
    for (size_t i = 0; i < count; i++) {
        const int holds = filters_hold(cases[i].text, json);
        if (holds != cases[i].holds)
            fprintf(stderr, "%s: %d\n", cases[i].text, holds);
        good = good && holds == cases[i].holds;
    }
    return good && filters_memory.used == 0;
}

#define FILTERS_HOLD(json, cases)                                                                  \
    CHECK(filters_all_hold(json, cases, sizeof(cases) / sizeof(cases)[0]))

/* ------------------------------------------------------------------------------------------------
 * meaning */

static const char filters_package[] =
    "{\"section\": \"editors\", \"installed_size\": 7, \"essential\": true, \"n\": null,"
    " \"zero\": 0, \"half\": 0.5, \"tag\": [\"c\", \"rust\"], \"none\": [], \"in\": 3,"
    " \"\": 1, \"a b\": 2, \"caf\\u00e9\": 3, \"nul\": \"a\\u0000b\", \"off\": false}";

TEST(text_means_what_sql_means)
{
    static const struct filters_case cases[] = {
        {"section = 'editors' AND installed_size < 8 AND tag IN ('c','rust') AND NOT off", 1},
        {"section='editors'and installed_size<7", 0},
        {"installed_size BETWEEN 7 AND 7 AND half BETWEEN 0 AND 1", 1},
        {"installed_size not between 7 and 8", 0},
        {"1 = 2 OR 1 = 1 AND 2 = 2", 1},
        {"(1 = 2 OR 1 = 1) AND 2 = 3", 0},
        {"NOT 1 = 2 AND 1 = 1", 1},
        {"NOT (1 = 2 AND 1 = 1)", 1},
        {"NOT NOT NOT 1 = 2", 1},
        {"8 > installed_size AND 7 >= installed_size AND 6 < installed_size AND 7 == "
         "installed_size",
         1},
        {"7 <> installed_size OR 8 <= installed_size OR 7 != installed_size", 0},
        {"\"in\" = 3 AND \"\" = 1 AND \"a b\" = 2 AND caf\xC3\xA9 = +3 AND \"caf\xC3\xA9\" = 3", 1},
        {"installed_size = 7.0 AND half = .5 AND half = 5e-1 AND half = + 0.5 AND zero = -0", 1},
        {"section LIKE 'edit%' AND section LIKE 'editors' AND NOT section LIKE 'Edit%'", 1},
        {"section LIKE '%' AND section NOT LIKE 'editor'", 1},
        {"section LIKE 'x%' OR installed_size LIKE '7' OR section LIKE 'editorsx%' ESCAPE 'x'", 0},
        {"'it''s' = 'it''s' AND 'a' < 'b' AND '' < 'a'", 1},
        {"TRUE AND NOT FALSE AND 1 AND NOT 0 AND NOT 'a'", 1},
        {"NULL OR NOT NULL OR NULL = NULL", 0},
        {"section\n=\t'editors'\r\n AND -\v7 <\finstalled_size AND NOT -\v7 = 0", 1},
    };
    FILTERS_HOLD(filters_package, cases);
}

TEST(a_comparison_with_what_a_record_lacks_is_unknown)
{
    static const struct filters_case cases[] = {
        {"absent = 1 OR NOT absent = 1 OR absent <> 1 OR n < 1 OR NOT n < 1", 0},
        {"absent IS NULL AND n IS NULL AND NOT absent IS NOT NULL AND section IS NOT NULL", 1},
        {"absent IN (1, 2) OR absent NOT IN (1, 2) OR absent LIKE 'a%' OR absent NOT LIKE 'a%'", 0},
        {"absent OR NOT absent OR n OR NOT n", 0},
        {"absent IS NOT 1 AND installed_size IS 7 AND installed_size IS NOT 8", 1},
        {"absent IS 1 OR installed_size IS NULL OR n IS 'a'", 0},
        {"NULL IS absent AND 7 IS installed_size AND 7 IS NOT section", 1},
        {"section = NULL OR section <> NULL OR section IN (NULL) OR section NOT IN ('x', NULL)", 0},
        {"section IN (NULL, 'editors')", 1},
        {"section IN () OR absent IN ()", 0},
        {"section NOT IN () AND absent NOT IN ()", 1},
        {"installed_size BETWEEN NULL AND 8 OR installed_size NOT BETWEEN NULL AND 8", 0},
        {"installed_size NOT BETWEEN NULL AND 6 AND installed_size NOT BETWEEN 8 AND NULL", 1},
        {"(absent = 1 OR section = 'editors') AND NOT (absent = 1 AND section = 'x')", 1},
        {"absent = 1 AND section = 'editors' OR NOT (absent = 1 AND section = 'editors')", 0},
    };
    FILTERS_HOLD(filters_package, cases);
}

TEST(a_field_alone_asks_whether_it_is_true)
{
    static const struct filters_case cases[] = {
        {"essential AND installed_size AND half AND NOT off AND NOT zero", 1},
        {"off OR zero OR section OR tag OR none OR n OR absent", 0},
        {"NOT section AND NOT tag AND NOT none", 1},
        {"essential = TRUE AND essential <> 1 AND off < TRUE AND essential < -1e300", 1},
        {"off IS FALSE AND essential IS TRUE AND installed_size IS NOT TRUE", 1},
    };
    FILTERS_HOLD(filters_package, cases);
}

TEST(of_an_array_any_text_may_be_meant_and_none_by_not)
{
    static const struct filters_case cases[] = {
        {"tag = 'c' AND tag = 'rust' AND tag IN ('x', 'rust') AND tag LIKE 'ru%'", 1},
        {"tag CONTAINS 'c' AND 'rust' IN tag AND tag NOT CONTAINS 'd' AND 'd' NOT IN tag", 1},
        {"tag <> 'c' OR tag NOT IN ('c') OR tag NOT LIKE 'ru%' OR NOT tag = 'rust'", 0},
        {"tag <> 'd' AND NOT tag = 'd' AND tag > 'd' AND tag < 'd' AND tag > 5", 1},
        {"tag BETWEEN 'd' AND 'e' OR tag NOT BETWEEN 'q' AND 's' OR tag IS NULL", 0},
        {"none IS NOT NULL AND NOT none = 'a' AND none NOT IN ('a') AND none NOT LIKE '%'", 1},
        {"none = 'a' OR none < 'a' OR none >= 'a' OR none LIKE '%' OR none IS NULL", 0},
        {"tag IS 'c' AND tag IS NOT 'd' AND none IS NOT 'a'", 1},
        {"section CONTAINS 'editors' AND 'editors' IN section", 1},
    };
    FILTERS_HOLD(filters_package, cases);
}

TEST(a_pattern_is_a_prefix_or_the_whole)
{
    static const struct filters_case cases[] = {
        {"'100%' LIKE '100!%' ESCAPE '!' AND '100%x' LIKE '100!%%' ESCAPE '!'", 1},
        {"'100' LIKE '100!%' ESCAPE '!'", 0},
        {"'a_b' LIKE 'a\\_b' ESCAPE '\\' AND 'a\\b' LIKE 'a\\\\%' ESCAPE '\\'", 1},
        {"'a_b' LIKE 'a\xC3\xA9_b' ESCAPE '\xC3\xA9'", 1},
        {"'' LIKE '' AND '' LIKE '%' AND NOT '' LIKE 'a%'", 1},
        {"'\xF4\x8F\xBF\xBFz' LIKE '\xF4\x8F\xBF\xBF%' AND '\xC3\xBF' LIKE '\xC3\xBF%'", 1},
        {"'\xC4\x80' LIKE '\xC3\xBF%'", 0},
        {"'it''s' LIKE 'it''%'", 1},
    };
    FILTERS_HOLD(NULL, cases);
}

TEST(ids_and_keys_choose_records)
{
    static const struct filters_case cases[] = {
        {"_id = 7 AND _id IN (9, 7, 3) AND _id BETWEEN 6.5 AND 7 AND _key = 'seven'", 1},
        {"_id > 6.9 AND _id >= 7.0 AND _id < 7.1 AND _id <= 7 AND _id <> 8 AND _id IS NOT 6", 1},
        {"_id = 7.5 OR _id = -7 OR _id = '7' OR _id < 0 OR _id < 7 OR _id > 7 OR _id > 1e300", 0},
        {"_id > -1e300 AND _id < 'a' AND _id > TRUE AND _id IS NOT NULL AND _id", 1},
        {"_id NOT BETWEEN 3 AND 6 AND _id NOT IN (1, 2) AND NOT _id NOT IN (7)", 1},
        {"_id IN (NULL) OR _id NOT IN (1, NULL) OR _id = NULL OR _id LIKE '7%' OR _id IN ()", 0},
        {"_key LIKE 'sev%' AND _key IS NOT NULL AND \"_key\" > 5", 1},
        {"{\"_id\": 7, \"_key\": {\"$prefix\": \"s\"}}", 1},
        {"_id IN (5, 6, 7, 8, 9, 9, 8)", 1},
        {"_id IN (5, 6, 8, 9, 9, 8)", 0},
    };
    FILTERS_HOLD(filters_package, cases);
}

TEST(ids_above_those_of_sql_stay_exact)
{
    omendb_filter *filter = NULL;
    filters_begin();
    CHECK_EQ_INT(filter_compile(&filters_memory,
                                "_id > 18446744073709551612 AND _id < 18446744073709551614",
                                &filter),
                 OMENDB_OK);
    for (uint64_t below = 1; below < 6; below++)
        CHECK_EQ_INT(filter_matches(filter, UINT64_MAX - below + 1, NULL), below == 3);
    filter_free(filter);
    CHECK_EQ_INT(filter_compile(&filters_memory, "_id >= 1.8446744073709552e19", &filter),
                 OMENDB_OK);
    CHECK(!filter_matches(filter, UINT64_MAX - 1, NULL));
    filter_free(filter);
    CHECK_EQ_INT(filter_compile(&filters_memory, "_id >= 9223372036854775808", &filter), OMENDB_OK);
    CHECK(filter_matches(filter, UINT64_C(1) << 63, NULL));
    CHECK(!filter_matches(filter, INT64_MAX, NULL));
    filter_free(filter);
    CHECK_EQ_INT(filter_compile(&filters_memory, "_id > 18446744073709551615", &filter), OMENDB_OK);
    CHECK(!filter_matches(filter, UINT64_MAX, NULL));
    filter_free(filter);
    CHECK(filters_memory.used == 0);
}

TEST(json_means_the_same)
{
    static const struct filters_case cases[] = {
        {"{}", 1},
        {" {\"$not\": {}} ", 0},
        {"{\"section\": \"editors\", \"installed_size\": {\"$lt\": 100}}", 1},
        {"{\"section\": \"editors\", \"installed_size\": {\"$lt\": 7}}", 0},
        {"{\"$or\": [{\"section\": \"x\"}, {\"installed_size\": {\"$gte\": 7, \"$lte\": 7}}]}", 1},
        {"{\"$and\": [{\"section\": \"x\"}, {\"installed_size\": {\"$gt\": 6}}]}", 0},
        {"{\"tag\": {\"$in\": [\"x\", \"c\"]}, \"section\": {\"$nin\": [1, 2, \"edit\"]}}", 1},
        {"{\"tag\": {\"$contains\": \"rust\"}, \"half\": {\"$between\": [0, 1]}}", 1},
        {"{\"section\": {\"$prefix\": \"edit\"}, \"installed_size\": {\"$ne\": 8}}", 1},
        {"{\"section\": {\"$prefix\": \"ed%\"}}", 0},
        {"{\"absent\": {\"$exists\": false}, \"n\": {\"$exists\": false},"
         " \"zero\": {\"$exists\": true}}",
         1},
        {"{\"absent\": null, \"n\": {\"$eq\": null}, \"section\": {\"$ne\": null}}", 1},
        {"{\"absent\": {\"$ne\": 5}}", 0},
        {"{\"installed_size\": {\"$not\": {\"$gt\": 7}}}", 1},
        {"{\"absent\": {\"$not\": {\"$gt\": 7}}}", 0},
        {"{\"tag\": {\"$in\": []}}", 0},
        {"{\"tag\": {\"$nin\": []}, \"absent\": {\"$nin\": []}}", 1},
        {"{\"essential\": true, \"caf\\u00e9\": 3e0, \"\": 1, \"nul\": \"a\\u0000b\"}", 1},
        {"{\"a\": 1, \"installed_size\": 7}", 0},
        {"{\"installed_size\": 7, \"installed_size\": 8}", 0},
        {"{\"$or\": [{\"x\": 1}, {}]}", 1},
        {"{\"nul\": {\"$gt\": \"a\", \"$lt\": \"aa\"}}", 1},
    };
    FILTERS_HOLD(filters_package, cases);
}

/* ------------------------------------------------------------------------------------------------
 * against the model and against SQLite */

enum { FILTERS_RECORDS = 24 };

struct filters_table {
    struct model_record records[FILTERS_RECORDS];
    uint8_t *documents[FILTERS_RECORDS];
    size_t sizes[FILTERS_RECORDS];
};

static void filters_fill(struct support_random *random, int flags, struct filters_table *table)
{
    for (int i = 0; i < FILTERS_RECORDS; i++) {
        struct model_record *record = &table->records[i];
        const char *key = NULL;
        struct model_text text = {.size = 0};
        model_random_record(random, flags, (uint64_t)i, record);
        model_print(&text, "{");
        for (int f = 0; f < MODEL_FIELDS; f++) {
            if (record->fields[f].type == MODEL_NULL && support_below(random, 2))
                continue;
            model_print(&text, text.size == 1 ? "" : ",");
            model_print_json_text(&text, model_names[f]);
            model_print(&text, ":");
            model_print_json(&text, &record->fields[f]);
        }
        model_print(&text, "}");
        if (record->fields[MODEL_FIELDS + 1].type == MODEL_TEXT)
            key = record->fields[MODEL_FIELDS + 1].text;
        table->documents[i] = filters_document(key, text.bytes, &table->sizes[i]);
    }
}

static void filters_empty(struct filters_table *table)
{
    for (int i = 0; i < FILTERS_RECORDS; i++)
        memory_free(&filters_memory, table->documents[i], table->sizes[i]);
}

static int filters_bind_value(omendb_filter *filter, int index, const struct model_value *value)
{
    static const enum document_type types[] = {DOCUMENT_NULL, DOCUMENT_FALSE, DOCUMENT_TRUE};
    struct filter_operand operand = {.parameter = 0};
    if (value->type == MODEL_TEXT)
        return filter_bind_text(filter, index, value->text);
    if (value->type == MODEL_NUMBER) {
        operand.value.type = value->is_real ? DOCUMENT_REAL : DOCUMENT_INTEGER;
        operand.value.integer = value->integer;
        operand.value.real = value->real;
    } else {
        operand.value.type = types[value->type];
    }
    return filter_bind(filter, index, &operand);
}

static int filters_bind_all(omendb_filter *filter, const struct model_filter *model)
{
    int code = OMENDB_OK;
    for (int i = 0; i < model->count; i++) {
        const struct model_node *node = &model->nodes[i];
        for (int j = 0; j < node->operand_count && code == OMENDB_OK; j++)
            if (node->parameters[j] != 0)
                code = filters_bind_value(filter, node->parameters[j], &node->operands[j]);
    }
    return code;
}

/* By the nodes, as whoever asks an index for each leaf would. */
static int filters_by_nodes(const omendb_filter *filter, uint32_t at, uint64_t id,
                            const uint8_t *document)
{
    const struct filter_node *node = &filter->nodes[at];
    if (node->kind == FILTER_LEAF) {
        omendb_filter one = *filter;
        struct filter_leaf leaf = filter->leaves[node->leaf];
        leaf.if_true = FILTER_MATCH;
        leaf.if_false = FILTER_MISS;
        one.leaves = &leaf;
        return filter_matches(&one, id, document);
    }
    int result = node->kind == FILTER_AND;
    for (uint32_t child = at + 1; child < node->end; child = filter->nodes[child].end) {
        const int holds = filters_by_nodes(filter, child, id, document);
        result = node->kind == FILTER_AND ? result && holds : result || holds;
    }
    return result;
}

static int filters_set_is_sound(const struct filter_leaf *leaf)
{
    const struct filter_set *set = &leaf->set;
    int good = set->value_count == 0 || set->range_count == 0;
    good = good && (leaf->subject == FILTER_ID ? set->value_count + set->range_count == 0
                                               : set->id_count == 0);
    for (uint32_t i = 1; i < set->value_count; i++)
        good = good && document_compare(&set->values[i - 1], &set->values[i]) < 0;
    for (uint32_t i = 0; i < set->value_count; i++)
        good = good && set->values[i].type != DOCUMENT_NULL;
    for (uint32_t i = 1; i < set->range_count; i++)
        good = good && document_compare(&set->ranges[i - 1].high, &set->ranges[i].low) <= 0;
    for (uint32_t i = 0; i < set->range_count; i++) {
        const struct filter_range *range = &set->ranges[i];
        const int order = document_compare(&range->low, &range->high);
        good = good && (range->high.type == DOCUMENT_NULL || order < 0 ||
                        (order == 0 && !range->low_open && !range->high_open));
    }
    for (uint32_t i = 0; i < set->id_count; i++)
        good = good && set->ids[i].first <= set->ids[i].last &&
               (i == 0 || set->ids[i - 1].last + 1 < set->ids[i].first);
    return good;
}

/* The promises of filter.h. */
static int filters_shape_is_sound(const omendb_filter *filter)
{
    int good = filter->node_count > 0 && filter->nodes[0].end == filter->node_count;
    for (uint32_t i = 0; i < filter->node_count; i++) {
        const struct filter_node *node = &filter->nodes[i];
        uint32_t children = 0;
        for (uint32_t child = i + 1; child < node->end; child = filter->nodes[child].end) {
            good = good && filter->nodes[child].kind != node->kind;
            children++;
        }
        good = good && (node->kind == FILTER_LEAF ? children == 0 : children > 1);
    }
    for (uint32_t i = 0; i < filter->leaf_count; i++) {
        const struct filter_leaf *leaf = &filter->leaves[i];
        good = good && leaf->if_true > i && leaf->if_false > i && filters_set_is_sound(leaf);
    }
    return good;
}

static int filters_agree(const char *text, const struct model_filter *model,
                         const struct filters_table *table)
{
    omendb_filter *filter = NULL;
    int good = filter_compile(&filters_memory, text, &filter) == OMENDB_OK &&
               filters_bind_all(filter, model) == OMENDB_OK && filters_shape_is_sound(filter);
    for (int i = 0; i < FILTERS_RECORDS && good; i++) {
        const int expected = model_evaluate(model, 0, &table->records[i]) == 1;
        const int holds = filter_matches(filter, (uint64_t)i, table->documents[i]);
        good = holds == expected &&
               holds == filters_by_nodes(filter, 0, (uint64_t)i, table->documents[i]);
        if (!good)
            fprintf(stderr, "record %d: %d and not %d\n", i, holds, expected);
    }
    if (!good)
        fprintf(stderr, "%s\n(%s)\n", text, omendb_errmsg());
    filter_free(filter);
    return good;
}

TEST(random_filters_mean_what_the_model_says_in_both_forms)
{
    static struct filters_table table;
    struct support_random random = {support_seed(1)};
    const uint64_t rounds = support_scaled(20000, 500);
    uint64_t in_json = 0;
    filters_begin();
    for (uint64_t i = 0; i < rounds; i++) {
        struct model_filter model = {.count = 0};
        struct model_text text = {.size = 0}, json = {.size = 0};
        if (i % 100 == 0) {
            filters_empty(&table);
            filters_fill(&random, 0, &table);
        }
        model_random_node(&random, MODEL_PARAMETERS, (int)support_below(&random, 5), &model);
        model_print_sql_node(&text, &model, 0, MODEL_OR, 0);
        CHECK(filters_agree(text.bytes, &model, &table));
        if (!model_print_json_node(&json, &model, 0))
            continue;
        CHECK(filters_agree(json.bytes, &model, &table));
        in_json++;
    }
    CHECK(in_json > rounds / 20);
    filters_empty(&table);
    memset(&table, 0, sizeof table);
    CHECK(filters_memory.used == 0);
}

/* One leaf of each operator, and its negation, over all kinds of values. */
TEST(truth_tables_are_those_of_three_values)
{
    static struct filters_table table;
    struct support_random random = {support_seed(2)};
    filters_begin();
    for (uint64_t i = 0; i < support_scaled(3000, 300); i++) {
        struct model_filter model = {.count = 7};
        if (i % 100 == 0) {
            filters_empty(&table);
            filters_fill(&random, 0, &table);
        }
        /* (NOT x AND y) OR z, then turned round */
        model.nodes[0] =
            (struct model_node){.kind = i % 2 ? MODEL_OR : MODEL_AND, .left = 1, .right = 2};
        model.nodes[1] =
            (struct model_node){.kind = i % 3 ? MODEL_AND : MODEL_OR, .left = 3, .right = 4};
        model.nodes[3] = (struct model_node){.kind = MODEL_NOT, .left = 5};
        model.nodes[2].kind = model.nodes[4].kind = model.nodes[5].kind = MODEL_LEAF;
        model_random_leaf(&random, 0, &model, &model.nodes[2]);
        model_random_leaf(&random, 0, &model, &model.nodes[4]);
        model_random_leaf(&random, 0, &model, &model.nodes[5]);
        model.nodes[5].operator=(enum model_operator)(i % MODEL_STARTS);
        if (model.nodes[5].operand_count < 2 &&
            (model.nodes[5].operator== MODEL_BETWEEN || model.nodes[5].operator==
             MODEL_NOT_BETWEEN))
            model.nodes[5].operand_count = 2;
        else if (model.nodes[5].operator<MODEL_BETWEEN)
            model.nodes[5].operand_count = 1;
        else if (model.nodes[5].operator<MODEL_IN)
            model.nodes[5].operand_count = 2;
        struct model_text text = {.size = 0};
        model_print_sql_node(&text, &model, 0, MODEL_OR, 0);
        CHECK(filters_agree(text.bytes, &model, &table));
    }
    filters_empty(&table);
    memset(&table, 0, sizeof table);
}

/* ---- SQLite, loaded where it is there, as its header need not be */

struct filters_sqlite {
    void *library, *db;
    int (*open)(const char *path, void **db);
    int (*exec)(void *db, const char *sql, int (*row)(void *, int, char **, char **), void *context,
                char **error);
    int (*close)(void *db);
};

static int filters_load(struct filters_sqlite *sqlite)
{
    static const char *const names[] = {"libsqlite3.so.0", "libsqlite3.so", "libsqlite3.dylib"};
    static const char *const symbols[] = {"sqlite3_open", "sqlite3_exec", "sqlite3_close"};
    void *found[3];
    memset(sqlite, 0, sizeof *sqlite);
    for (size_t i = 0; i < 3 && sqlite->library == NULL; i++)
        sqlite->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    for (size_t i = 0; i < 3 && sqlite->library != NULL; i++)
        if ((found[i] = dlsym(sqlite->library, symbols[i])) == NULL)
            return 0;
    if (sqlite->library == NULL)
        return 0;
    memcpy(&sqlite->open, &found[0], sizeof found[0]);
    memcpy(&sqlite->exec, &found[1], sizeof found[1]);
    memcpy(&sqlite->close, &found[2], sizeof found[2]);
    return sqlite->open(":memory:", &sqlite->db) == 0;
}

static int filters_row(void *context, int columns, char **values, char **names)
{
    (void)columns;
    (void)names;
    *(uint32_t *)context |= UINT32_C(1) << strtoul(values[0], NULL, 10);
    return 0;
}

static int filters_run(const struct filters_sqlite *sqlite, const char *sql, uint32_t *rows)
{
    char *error = NULL;
    *rows = 0;
    if (sqlite->exec(sqlite->db, sql, filters_row, rows, &error) == 0)
        return 1;
    fprintf(stderr, "%s: %s\n", sql, error);
    return 0;
}

static int filters_insert(const struct filters_sqlite *sqlite, const struct filters_table *table)
{
    uint32_t rows;
    int good = filters_run(sqlite,
                           "DROP TABLE IF EXISTS t; PRAGMA case_sensitive_like = 1; CREATE TABLE "
                           "t(a, b, \"long.name_3\", \"Not\", _id, _key)",
                           &rows);
    for (int i = 0; i < FILTERS_RECORDS && good; i++) {
        struct model_text text = {.size = 0};
        for (int f = 0; f < MODEL_FIELDS + 2; f++) {
            model_print(&text, f == 0 ? "INSERT INTO t VALUES(" : ",");
            model_print_sql(&text, &table->records[i].fields[f]);
        }
        model_print(&text, ")");
        good = filters_run(sqlite, text.bytes, &rows);
    }
    return good;
}

static int filters_agree_with_sqlite(const struct filters_sqlite *sqlite,
                                     const struct model_filter *model,
                                     const struct filters_table *table)
{
    struct model_text text = {.size = 0}, sql = {.size = 0};
    omendb_filter *filter = NULL;
    uint32_t expected, rows = 0;
    model_print_sql_node(&text, model, 0, MODEL_OR, 0);
    model_print(&sql, "SELECT _id FROM t WHERE ");
    model_print_sql_node(&sql, model, 0, MODEL_OR, 1);
    if (!filters_run(sqlite, sql.bytes, &expected) ||
        filter_compile(&filters_memory, text.bytes, &filter) != OMENDB_OK)
        return 0;
    for (int i = 0; i < FILTERS_RECORDS; i++)
        if (filter_matches(filter, (uint64_t)i, table->documents[i]))
            rows |= UINT32_C(1) << i;
    filter_free(filter);
    if (rows != expected)
        fprintf(stderr, "%s\nfinds %x, SQLite %x\n", text.bytes, rows, expected);
    return rows == expected;
}

TEST(sqlite_finds_the_same_records)
{
    static struct filters_table table;
    struct filters_sqlite sqlite;
    struct support_random random = {support_seed(3)};
    filters_begin();
    if (!filters_load(&sqlite)) {
        fprintf(stderr, "SQLite is not installed: nothing was compared\n");
        return;
    }
    for (uint64_t i = 0; i < support_scaled(10000, 500); i++) {
        struct model_filter model = {.count = 0};
        if (i % 250 == 0) {
            filters_empty(&table);
            filters_fill(&random, MODEL_SCALARS_ONLY, &table);
            CHECK(filters_insert(&sqlite, &table));
        }
        model_random_node(&random, MODEL_SCALARS_ONLY, (int)support_below(&random, 5), &model);
        CHECK(filters_agree_with_sqlite(&sqlite, &model, &table));
    }
    filters_empty(&table);
    memset(&table, 0, sizeof table);
    CHECK(filters_memory.used == 0);
    CHECK_EQ_INT(sqlite.close(sqlite.db), 0);
}

/* ------------------------------------------------------------------------------------------------
 * what is refused */

TEST(an_error_shows_the_place)
{
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"installed_size < AND tag IN ('c')", "filter: byte 17: expected a value after '<'\n"
                                              "    installed_size < AND tag IN ('c')\n"
                                              "                     ^"},
        {"", "filter: byte 0: expected a condition\n    \n    ^"},
        {"a = 1 AND", "filter: byte 9: expected a condition after 'AND'\n"
                      "    a = 1 AND\n"
                      "             ^"},
        {"\xC3\xA9\t=\n= 'x'", "filter: byte 5: expected a value after '='\n"
                               "    \xC3\xA9 = = 'x'\n"
                               "        ^"},
        {"a = 'abc", "filter: byte 4: the ' that begins here does not end\n"
                     "    a = 'abc\n"
                     "        ^"},
        {"a = b", "filter: byte 4: two fields cannot be compared; texts are in single quotes: 'b'\n"
                  "    a = b\n"
                  "        ^"},
        {"section = \"editors\" AND c",
         "filter: byte 10: two fields cannot be compared; texts are in single quotes: 'editors'\n"
         "    section = \"editors\" AND c\n"
         "              ^"},
        {"size + 1 > 3", "filter: byte 5: expected a comparison (=, <, IN, LIKE, ...), AND, OR or "
                         "the end after 'size'; there are no functions and no arithmetic\n"
                         "    size + 1 > 3\n"
                         "         ^"},
        {"a = true -- c", "filter: byte 9: there are no comments\n"
                          "    a = true -- c\n"
                          "             ^"},
        {"section = 'a very long text that goes on' AND x y = 'another very long text'",
         "filter: byte 48: expected a comparison (=, <, IN, LIKE, ...), AND, OR or the end after "
         "'x'; there are no functions and no arithmetic\n"
         "    ...long text that goes on' AND x y = 'another very lo...\n"
         "                                     ^"},
        {"{\"a\": nulx}", "filter: byte 9: expected 'null', not 'x'\n"
                          "    {\"a\": nulx}\n"
                          "             ^"},
        {"{\"a\": {\"$lower\": 5}}",
         "filter: byte 7: expected an operator: $eq, $ne, $lt, $lte, $gt, $gte, $between, $in, "
         "$nin, $prefix, $contains, $exists or $not\n"
         "    {\"a\": {\"$lower\": 5}}\n"
         "           ^"},
    };
    omendb_filter *filter;
    filters_begin();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_EQ_INT(filter_compile(&filters_memory, cases[i].text, &filter), OMENDB_INVALID);
        CHECK_EQ_STR(omendb_errmsg(), cases[i].sentence);
        CHECK(filter == NULL);
    }
    CHECK(filters_memory.used == 0);
}

TEST(what_is_no_filter_is_refused)
{
    static const struct {
        const char *text, *what;
    } cases[] = {
        {"a = = 3", "expected a value after '='"},
        {"(a = 3", "expected AND, OR or ')'"},
        {"a = 3)", "expected AND, OR or the end"},
        {"()", "expected a condition"},
        {"a b", "AND, OR or the end after 'a'"},
        {"a = 1 b", "expected AND, OR or the end after '1'"},
        {"(a) b", "expected AND, OR or the end after ')'"},
        {"(a b)", "expected a comparison (=, <, IN, LIKE, ...), AND, OR or ')' after 'a'"},
        {"section ILIKE 'x%'", "expected a comparison"},
        {"lower(s) = 'x'", "there are no functions"},
        {"WHERE size > 1", "expected a comparison"},
        {"a IN b", "'b'"},
        {"a = 1 && b", "write AND"},
        {"a = 1 || b", "write OR"},
        {"a = $1", "parameters are ?, ?1 or :name"},
        {"a = @b", "parameters are ?, ?1 or :name"},
        {"a = 1;", "nothing ends"},
        {"a = 1 # b", "there are no comments"},
        {"a * 2 = 4", "there is no arithmetic"},
        {"`a` = 1", "names are in double quotes"},
        {"a NOT = 3", "expected IN, BETWEEN, LIKE or CONTAINS"},
        {"a IN (1 2)", "expected ',' or ')'"},
        {"a IN (1,)", "expected a value"},
        {"a IN 5", "expected '(', a parameter or a field"},
        {"a IN (b)", "expected a value"},
        {"a BETWEEN 1 OR 2", "expected AND"},
        {"a LIKE 5", "expected a text"},
        {"a LIKE '_'",
         "LIKE has no '_' for any character; for '_' itself name a character by ESCAPE"},
        {"a LIKE '%a'", "LIKE has '%' at the end"},
        {"a LIKE 'a%%'", "for '%' itself name a character by ESCAPE and write it before"},
        {"a LIKE 'a!' ESCAPE '!'", "the pattern ends with the character of ESCAPE"},
        {"a LIKE 'a' ESCAPE 'ab'", "ESCAPE takes one character"},
        {"a LIKE 'a' ESCAPE ''", "ESCAPE takes one character"},
        {"a LIKE 'a' ESCAPE ?1", "a text of one character"},
        {"a = 1e", "expected a digit of the exponent"},
        {"a = 0x10", "a number does not go on like this"},
        {"a = -", "expected a digit"},
        {"a = .", "expected a digit"},
        {"a = 1e999", "a number that is too large"},
        {"a = ?0", "numbers of parameters are 1 to 32766"},
        {"a = ?32767", "numbers of parameters are 1 to 32766"},
        {"a = ?99999999999999999999999999", "numbers of parameters are 1 to 32766"},
        {"a = ?x", "expected the number of a parameter"},
        {"a = :", "expected the name of a parameter"},
        {"a ; b", "nothing begins with ';'"},
        {"a = \x01", "nothing begins with ' '"},
        {"a - 1", "no arithmetic"},
        {"\"a = 1", "does not end"},
        {"a = '\xFF'", "not UTF-8"},
        {"a = 'x' AND '\xC3", "not UTF-8"},
        {"NOT", "expected a condition"},
        {"AND", "expected a condition"},
        {"{", "expected the name of a field"},
        {"{\"a\"}", "expected ':'"},
        {"{\"a\": }", "expected a value"},
        {"{\"a\": 1,}", "expected the name of a field"},
        {"{\"a\": 1} x", "expected nothing more"},
        {"{\"a\": 01}", "must not begin with 0"},
        {"{\"a\": {}}", "expected an operator"},
        {"{\"a\": [1]}", "an operator that takes an array"},
        {"{\"a\": {\"$lt\": null}}", "null compares with nothing"},
        {"{\"a\": {\"$contains\": null}}", "null compares with nothing"},
        {"{\"a\": {\"$in\": [1, null]}}", "null compares with nothing"},
        {"{\"a\": {\"$in\": 5}}", "expected an array"},
        {"{\"a\": {\"$between\": [1]}}", "$between takes two values"},
        {"{\"a\": {\"$between\": [1, 2, 3]}}", "$between takes two values"},
        {"{\"a\": {\"$prefix\": 5}}", "$prefix takes a text"},
        {"{\"a\": {\"$exists\": 1}}", "expected true or false"},
        {"{\"a\": {\"$not\": 5}}", "expected a condition"},
        {"{\"a\": {\"b\": 5}}", "expected an operator"},
        {"{\"$and\": []}", "expected a filter"},
        {"{\"$or\": []}", "$and and $or have at least one"},
        {"{\"$or\": {}}", "expected an array of filters"},
        {"{\"$or\": [5]}", "expected a filter"},
        {"{\"$nor\": [{}]}", "$and, $or or $not"},
        {"{\"a\": {\"$param\": -1}}", "the number or the name of a parameter"},
        {"{\"a\": {\"$param\": 1.5}}", "numbers of parameters"},
        {"{\"a\": {\"$param\": 0}}", "numbers of parameters"},
        {"{\"a\": {\"$param\": \"\"}}", "expected the name of a parameter"},
        {"{\"a\": {\"$param\": 1, \"$lt\": 5}}", "expected '}'"},
        {"{\"a\": \"\\ud800\"}", "surrogate"},
    };
    omendb_filter *filter;
    filters_begin();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int code = filter_compile(&filters_memory, cases[i].text, &filter);
        if (code != OMENDB_INVALID || strstr(omendb_errmsg(), cases[i].what) == NULL)
            fprintf(stderr, "%s\n%d: %s\n", cases[i].text, code, omendb_errmsg());
        CHECK_EQ_INT(code, OMENDB_INVALID);
        CHECK(strstr(omendb_errmsg(), cases[i].what) != NULL);
        CHECK(strncmp(omendb_errmsg(), "filter: byte ", 13) == 0);
        CHECK(omendb_errmsg()[strlen(omendb_errmsg()) - 1] == '^');
    }
    CHECK(filters_memory.used == 0);
}

/* No part of a filter is read beyond its end, whatever it ends with. */
TEST(every_beginning_of_a_filter_is_one_or_is_refused)
{
    static const char *const whole[] = {
        "NOT (a.b = -1.5e3 AND \"q\"\"\" IN ('it''s', ?1, :name)) OR x BETWEEN 1 AND 2 "
        "OR t NOT LIKE 'a\\%%' ESCAPE '\\' OR z IS NOT NULL AND w CONTAINS 'x'",
        "{\"$or\": [{\"a\": {\"$not\": {\"$in\": [1, -2.5e3, \"\\u00e9\", {\"$param\": 1}]}}}, "
        "{\"$not\": {\"b\": {\"$between\": [1, 2]}}}, {\"c\": null, \"d\": {\"$exists\": true}}]}"};
    char text[512];
    omendb_filter *filter;
    filters_begin();
    for (size_t i = 0; i < 2; i++) {
        for (size_t size = 0; size <= strlen(whole[i]); size++) {
            char *copy = malloc(size + 1);
            CHECK(copy != NULL);
            memcpy(copy, whole[i], size);
            copy[size] = '\0';
            const int code = filter_compile(&filters_memory, copy, &filter);
            free(copy);
            CHECK(code == OMENDB_OK || code == OMENDB_INVALID);
            CHECK(size < strlen(whole[i]) ? i == 0 || code != OMENDB_OK : code == OMENDB_OK);
            filter_free(filter);
        }
    }
    for (size_t size = 0; size < strlen(whole[0]); size++) {
        for (int byte = 1; byte < 256; byte += 3) {
            snprintf(text, sizeof text, "%s", whole[size % 2]);
            text[size] = (char)byte;
            const int code = filter_compile(&filters_memory, text, &filter);
            CHECK(code == OMENDB_OK || code == OMENDB_INVALID);
            filter_free(filter);
        }
    }
    CHECK(filters_memory.used == 0);
}

/* `before` and `behind` so many times around `middle`. */
static int filters_nested(const char *before, const char *middle, const char *behind, size_t times)
{
    const size_t first = strlen(before), last = strlen(behind);
    char *text = malloc(times * (first + last) + strlen(middle) + 1), *at = text;
    omendb_filter *filter = NULL;
    for (size_t i = 0; i < times; i++, at += first)
        memcpy(at, before, first);
    memcpy(at, middle, strlen(middle));
    at += strlen(middle);
    for (size_t i = 0; i < times; i++, at += last)
        memcpy(at, behind, last);
    *at = '\0';
    const int code = filter_compile(&filters_memory, text, &filter);
    free(text);
    filter_free(filter);
    return code;
}

TEST(unknown_names_that_begin_with_an_underscore_are_refused_but_in_quotes)
{
    static const struct {
        const char *text;
        size_t at;
    } cases[] = {{"_distance < 1", 0},
                 {"a = 1 AND _KEY = 'a'", 10},
                 {"'c' IN _tags", 7},
                 {"{\"_score\": 1}", 1},
                 {"_", 0},
                 {"_id = 1 OR _ids = 2", 11}};
    filters_begin();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char start[32];
        omendb_filter *filter = NULL;
        CHECK_EQ_INT(filter_compile(&filters_memory, cases[i].text, &filter), OMENDB_INVALID);
        snprintf(start, sizeof start, "filter: byte %zu: of names", cases[i].at);
        CHECK(strncmp(omendb_errmsg(), start, strlen(start)) == 0);
        CHECK(strstr(omendb_errmsg(), "_id and _key") != NULL);
    }
    CHECK_EQ_INT(
        filters_hold("\"_distance\" < 1 AND _id = 7 AND \"_id\" = 7", "{\"_distance\": 0}"), 1);
    CHECK(filters_memory.used == 0);
}

TEST(depth_and_length_have_limits)
{
    filters_begin();
    CHECK_EQ_INT(filters_nested("(", "a", ")", FILTER_DEPTH_MAX), OMENDB_OK);
    CHECK_EQ_INT(filters_nested("(", "a", ")", FILTER_DEPTH_MAX + 1), OMENDB_TOOBIG);
    CHECK_EQ_INT(filters_nested("(", "a", "", 1000000), OMENDB_TOOBIG);
    CHECK_EQ_INT(filters_nested("NOT ", "a", "", 200000), OMENDB_OK);
    CHECK_EQ_INT(filters_nested("NOT (b OR ", "a", ")", FILTER_DEPTH_MAX), OMENDB_OK);
    CHECK_EQ_INT(filters_nested("{\"$not\":", "{}", "}", FILTER_DEPTH_MAX - 1), OMENDB_OK);
    CHECK_EQ_INT(filters_nested("{\"$not\":", "{}", "}", FILTER_DEPTH_MAX), OMENDB_TOOBIG);
    CHECK_EQ_INT(filters_nested("{\"$or\":[", "{}", "]}", FILTER_DEPTH_MAX / 2), OMENDB_TOOBIG);
    CHECK_EQ_INT(filters_nested("{\"$or\":[", "", "", 100000), OMENDB_TOOBIG);
    CHECK_EQ_INT(filters_nested("a OR ", "a", "", FILTER_LEAVES_MAX - 1), OMENDB_OK);
    CHECK_EQ_INT(filters_nested("a OR ", "a", "", FILTER_LEAVES_MAX), OMENDB_TOOBIG);
    CHECK_EQ_INT(filters_nested("(a AND (b)) OR ", "a", "", FILTER_LEAVES_MAX / 2 - 1), OMENDB_OK);
    CHECK_EQ_INT(filters_nested(" ", "a", "", FILTER_TEXT_MAX - 1), OMENDB_OK);
    CHECK_EQ_INT(filters_nested(" ", "a", "", FILTER_TEXT_MAX), OMENDB_TOOBIG);
    CHECK_EQ_INT(filters_nested("", "a IN (1", ",1", 1), OMENDB_INVALID);
    CHECK_EQ_INT(filters_nested("?,", "1 IN (?", "", 1), OMENDB_INVALID);
    CHECK(filters_memory.used == 0);
}

/* ------------------------------------------------------------------------------------------------
 * parameters, handles */

static omendb *filters_db;

static int filters_open(void)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = 0;
    filters_begin();
    return omendb_open(":memory:", &options, &filters_db) == OMENDB_OK;
}

static int filters_find(const omendb_filter *filter, const char *json)
{
    size_t size;
    uint8_t *document = filters_document(NULL, json, &size);
    const int holds = filter_matches(filter, 7, document);
    memory_free(&filters_memory, document, size);
    return holds;
}

TEST(parameters_are_numbered_as_in_sqlite_and_null_until_bound)
{
    omendb_filter *filter;
    CHECK(filters_open());
    CHECK_EQ_INT(omendb_filter_compile(filters_db,
                                       "a = ? OR a = ?5 OR a = :one OR a = ? OR a = :two OR "
                                       "a = :one AND b IS ?2",
                                       &filter),
                 OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_parameter_count(filter), 8);
    CHECK_EQ_INT(omendb_filter_parameter(filter, "one"), 6);
    CHECK_EQ_INT(omendb_filter_parameter(filter, ":two"), 8);
    CHECK_EQ_INT(omendb_filter_parameter(filter, "three"), 0);
    CHECK_EQ_INT(omendb_filter_parameter(filter, ""), 0);
    CHECK(!filters_find(filter, "{\"a\": 1}"));
    CHECK_EQ_INT(omendb_filter_bind_i64(filter, 6, 1), OMENDB_OK);
    CHECK(filters_find(filter, "{\"a\": 1}"));
    CHECK_EQ_INT(omendb_filter_bind_text(filter, 6, "x"), OMENDB_OK);
    CHECK(!filters_find(filter, "{\"a\": 1}"));
    CHECK(filters_find(filter, "{\"a\": \"x\"}"));
    CHECK_EQ_INT(omendb_filter_bind_null(filter, 6), OMENDB_OK);
    CHECK(!filters_find(filter, "{\"a\": \"x\"}"));
    CHECK_EQ_INT(omendb_filter_bind_bool(filter, 1, 5), OMENDB_OK);
    CHECK(filters_find(filter, "{\"a\": true}"));
    CHECK_EQ_INT(omendb_filter_bind_f64(filter, 1, 0.25), OMENDB_OK);
    CHECK(filters_find(filter, "{\"a\": 0.25}"));
    omendb_filter_free(filter);
    CHECK_EQ_INT(omendb_filter_compile(filters_db,
                                       "{\"a\": {\"$param\": 2}, \"b\": {\"$gt\": "
                                       "{\"$param\": \"least\"}}}",
                                       &filter),
                 OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_parameter(filter, "least"), 3);
    CHECK_EQ_INT(omendb_filter_parameter_count(filter), 3);
    omendb_filter_free(filter);
    CHECK_EQ_INT(omendb_filter_compile(filters_db, "a = 1", &filter), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_parameter_count(filter), 0);
    omendb_filter_free(filter);
    CHECK_EQ_INT(omendb_filter_parameter_count(NULL), 0);
    CHECK_EQ_INT(omendb_close(filters_db), OMENDB_OK);
}

TEST(an_array_is_bound_for_in)
{
    static const char *const texts[] = {"rust", "c", "c", ""};
    omendb_filter *filter;
    CHECK(filters_open());
    CHECK_EQ_INT(
        omendb_filter_compile(
            filters_db, "?1 IS NULL OR a IN ?1 OR b NOT IN (?1, 'x') OR 'rust' IN ?2", &filter),
        OMENDB_OK);
    CHECK(filters_find(filter, "{}"));
    CHECK_EQ_INT(omendb_filter_bind_texts(filter, 1, texts, 4), OMENDB_OK);
    CHECK(!filters_find(filter, "{}"));
    CHECK(filters_find(filter, "{\"a\": \"c\"}"));
    CHECK(filters_find(filter, "{\"a\": \"\"}"));
    CHECK(filters_find(filter, "{\"a\": [\"z\", \"rust\"]}"));
    CHECK(!filters_find(filter, "{\"a\": \"d\"}"));
    CHECK(filters_find(filter, "{\"b\": \"d\"}"));
    CHECK(!filters_find(filter, "{\"b\": \"x\"}"));
    CHECK_EQ_INT(omendb_filter_bind_texts(filter, 1, NULL, 0), OMENDB_OK);
    CHECK(!filters_find(filter, "{\"a\": \"c\"}"));
    CHECK(!filters_find(filter, "{}"));
    CHECK_EQ_INT(omendb_filter_bind_texts(filter, 2, texts, 2), OMENDB_OK);
    CHECK(filters_find(filter, "{}"));
    omendb_filter_free(filter);
    CHECK_EQ_INT(omendb_filter_compile(filters_db, "a IN ?1 AND b = ?2", &filter), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_bind_i64(filter, 1, 5), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_bind_i64(filter, 2, 6), OMENDB_OK);
    CHECK(filters_find(filter, "{\"a\": 5, \"b\": 6}"));
    CHECK_EQ_INT(omendb_filter_bind_texts(filter, 2, texts, 2), OMENDB_INVALID);
    CHECK(strstr(omendb_errmsg(), "parameter 2 would be an array") != NULL);
    CHECK(filters_find(filter, "{\"a\": 5, \"b\": 6}"));
    omendb_filter_free(filter);
    CHECK_EQ_INT(omendb_close(filters_db), OMENDB_OK);
}

TEST(what_cannot_be_bound_leaves_what_was)
{
    static const char *const texts[] = {"a", "\xFF"};
    omendb_filter *filter;
    CHECK(filters_open());
    CHECK_EQ_INT(omendb_filter_compile(filters_db, "a LIKE :p AND :p <> 'b'", &filter), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_bind_text(filter, 1, "it%"), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_bind_text(filter, 1, "%it"), OMENDB_INVALID);
    CHECK(strstr(omendb_errmsg(), "parameter 1: LIKE has '%'") != NULL);
    CHECK_EQ_INT(omendb_filter_bind_i64(filter, 1, 5), OMENDB_INVALID);
    CHECK(strstr(omendb_errmsg(), "must be a text") != NULL);
    CHECK_EQ_INT(omendb_filter_bind_text(filter, 1, "\xC3"), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_filter_bind_texts(filter, 1, texts, 2), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_filter_bind_texts(filter, 1, texts, 1), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_filter_bind_f64(filter, 1, (double)NAN), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_filter_bind_f64(filter, 1, (double)INFINITY), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_filter_bind_i64(filter, 2, 5), OMENDB_INVALID);
    CHECK_EQ_STR(omendb_errmsg(), "index is 2; the parameters of the filter are 1 to 1");
    CHECK_EQ_INT(omendb_filter_bind_i64(filter, 0, 5), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_filter_bind_text(filter, -1, "a"), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_filter_bind_text(filter, 1, NULL), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_filter_bind_texts(filter, 1, NULL, 1), OMENDB_MISUSE);
    CHECK(filters_find(filter, "{\"a\": \"its\"}"));
    CHECK(!filters_find(filter, "{\"a\": \"is\"}"));
    CHECK_EQ_INT(omendb_filter_bind_null(filter, 1), OMENDB_OK);
    CHECK(!filters_find(filter, "{\"a\": \"its\"}"));
    omendb_filter_free(filter);
    CHECK_EQ_INT(omendb_close(filters_db), OMENDB_OK);
}

TEST(ids_are_bound_exactly)
{
    omendb_filter *filter;
    CHECK(filters_open());
    CHECK_EQ_INT(omendb_filter_compile(filters_db, "_id = ?1", &filter), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_bind_u64(filter, 1, UINT64_MAX - 1), OMENDB_OK);
    CHECK(filter_matches(filter, UINT64_MAX - 1, NULL));
    CHECK(!filter_matches(filter, UINT64_MAX - 2, NULL));
    CHECK_EQ_INT(omendb_filter_bind_u64(filter, 1, 7), OMENDB_OK);
    CHECK(filter_matches(filter, 7, NULL));
    CHECK(!filter_matches(filter, UINT64_MAX - 1, NULL));
    omendb_filter_free(filter);
    CHECK_EQ_INT(omendb_close(filters_db), OMENDB_OK);
}

TEST(an_open_filter_keeps_its_database)
{
    omendb_filter *filter = NULL, *other = NULL;
    CHECK(filters_open());
    CHECK_EQ_INT(omendb_filter_compile(filters_db, "a", &filter), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(filters_db), OMENDB_BUSY);
    CHECK_EQ_STR(omendb_errmsg(), "1 filter is open; close it first");
    CHECK_EQ_INT(omendb_filter_compile(filters_db, "a = ?1", &other), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(filters_db), OMENDB_BUSY);
    CHECK_EQ_STR(omendb_errmsg(), "2 filters are open; close them first");
    omendb_filter_free(filter);
    omendb_release(filters_db);
    CHECK_EQ_INT(omendb_filter_bind_i64(other, 1, 5), OMENDB_MISUSE);
    omendb_filter_free(other);
}

TEST(wrong_handles_are_misuse)
{
    omendb_filter *filter = NULL;
    CHECK(filters_open());
    CHECK_EQ_INT(omendb_filter_compile(NULL, "a", &filter), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_filter_compile(filters_db, NULL, &filter), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_filter_compile(filters_db, "a", NULL), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_filter_compile(filters_db, "a =", &filter), OMENDB_INVALID);
    CHECK(filter == NULL);
    omendb_filter_free(NULL);
    omendb_filter_free((omendb_filter *)(void *)filters_db);
    CHECK_EQ_INT(omendb_filter_bind_null(NULL, 1), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_filter_bind_null((omendb_filter *)(void *)filters_db, 1), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_filter_parameter(NULL, "a"), 0);
    CHECK_EQ_INT(omendb_filter_compile(filters_db, "a", &filter), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_parameter(filter, NULL), 0);
    CHECK_EQ_INT(omendb_filter_bind_null(filter, 1), OMENDB_INVALID);
    CHECK_EQ_STR(omendb_errmsg(), "index is 1; the parameters of the filter are 0");
    omendb_filter_free(filter);
    CHECK_EQ_INT(omendb_close(filters_db), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * memory that lacks */

TEST(a_failing_allocation_leaves_nothing_behind)
{
    static const char *const texts[] = {
        "a IN (1, 2, ?1) AND (b LIKE 'x%' OR _id IN (3, 4) OR :n IS NULL) AND NOT (c OR d)",
        "{\"a\": {\"$in\": [1, 2]}, \"$or\": [{\"b\": {\"$prefix\": \"x\"}}, "
        "{\"_key\": {\"$param\": \"n\"}}]}"};
    struct memory memory;
    omendb_filter *filter;
    for (size_t i = 0; i < 2; i++) {
        int code = OMENDB_NOMEM;
        for (int after = 0; code == OMENDB_NOMEM && after < 100; after++) {
            memory_init(&memory, &failing_allocator, 0);
            atomic_store(&failing_after, after);
            code = filter_compile(&memory, texts[i], &filter);
            atomic_store(&failing_after, -1);
            CHECK(code == OMENDB_OK ? after > 5 : filter == NULL);
            filter_free(filter);
            CHECK(memory.used == 0);
        }
        CHECK_EQ_INT(code, OMENDB_OK);
    }
}

TEST(a_failing_allocation_leaves_parameters_as_they_were)
{
    static const char *const texts[] = {"a", "b"};
    struct memory memory;
    omendb_filter *filter;
    memory_init(&memory, &failing_allocator, 0);
    filters_begin();
    CHECK_EQ_INT(filter_compile(&memory, "a IN ?1 OR b IN (?1, 'x') OR c IN (?1)", &filter),
                 OMENDB_OK);
    CHECK_EQ_INT(filter_bind_text(filter, 1, "old"), OMENDB_OK);
    const uint64_t used = memory.used;
    int code = OMENDB_NOMEM;
    for (int after = 0; code == OMENDB_NOMEM && after < 100; after++) {
        atomic_store(&failing_after, after);
        code = filter_bind_texts(filter, 1, texts, 2);
        atomic_store(&failing_after, -1);
        CHECK(code == OMENDB_OK ? after == 4 : memory.used == used);
        CHECK_EQ_INT(filters_find(filter, "{\"b\": \"old\"}"), code == OMENDB_NOMEM);
        CHECK_EQ_INT(filters_find(filter, "{\"c\": \"b\"}"), code == OMENDB_OK);
    }
    CHECK_EQ_INT(code, OMENDB_OK);
    filter_free(filter);
    CHECK(memory.used == 0);
}

TEST_MAIN(text_means_what_sql_means, a_comparison_with_what_a_record_lacks_is_unknown,
          a_field_alone_asks_whether_it_is_true, of_an_array_any_text_may_be_meant_and_none_by_not,
          a_pattern_is_a_prefix_or_the_whole, ids_and_keys_choose_records,
          ids_above_those_of_sql_stay_exact, json_means_the_same,
          random_filters_mean_what_the_model_says_in_both_forms,
          truth_tables_are_those_of_three_values, sqlite_finds_the_same_records,
          an_error_shows_the_place, what_is_no_filter_is_refused,
          every_beginning_of_a_filter_is_one_or_is_refused,
          unknown_names_that_begin_with_an_underscore_are_refused_but_in_quotes,
          depth_and_length_have_limits, parameters_are_numbered_as_in_sqlite_and_null_until_bound,
          an_array_is_bound_for_in, what_cannot_be_bound_leaves_what_was, ids_are_bound_exactly,
          an_open_filter_keeps_its_database, wrong_handles_are_misuse,
          a_failing_allocation_leaves_nothing_behind,
          a_failing_allocation_leaves_parameters_as_they_were)
