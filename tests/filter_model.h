/* filter_model.h: conditions as trees, with the plainest evaluation there is, in three values; and
 * their printing as our text, as our JSON and as SQL of SQLite. For test_filters.c.
 *
 * Everything here is done anew, without a look at the library: values of fields and operands are of
 * this file, and so is their order. */
#ifndef OMENDB_TEST_FILTER_MODEL_H
#define OMENDB_TEST_FILTER_MODEL_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "support.h"

enum model_type { MODEL_NULL, MODEL_FALSE, MODEL_TRUE, MODEL_NUMBER, MODEL_TEXT, MODEL_TEXTS };

struct model_value {
    enum model_type type;
    int is_real;
    int64_t integer;
    double real;
    const char *text;
    const char *texts[4];
    int count;
};

enum { MODEL_FIELDS = 4, MODEL_OPERANDS = 4, MODEL_NODES = 64 };

/* Fields of the metadata, then _id, then _key. */
struct model_record {
    uint64_t id;
    struct model_value fields[MODEL_FIELDS + 2];
};

enum model_operator {
    MODEL_EQUAL,
    MODEL_UNEQUAL,
    MODEL_LESS,
    MODEL_LESS_OR_EQUAL,
    MODEL_GREATER,
    MODEL_GREATER_OR_EQUAL,
    MODEL_BETWEEN,
    MODEL_NOT_BETWEEN,
    MODEL_IN,
    MODEL_NOT_IN,
    MODEL_STARTS,
    MODEL_NOT_STARTS,
    MODEL_IS,
    MODEL_IS_NOT,
    MODEL_TRUTH,
    MODEL_OPERATORS
};

enum model_kind { MODEL_LEAF, MODEL_AND, MODEL_OR, MODEL_NOT };

struct model_node {
    enum model_kind kind;
    int left, right; /* nodes */
    int field;
    enum model_operator operator;
    struct model_value operands[MODEL_OPERANDS];
    int parameters[MODEL_OPERANDS]; /* the number by which each is given; 0: as a literal */
    int operand_count;
};

struct model_filter {
    struct model_node nodes[MODEL_NODES];
    int count, parameters;
};

static const char *const model_names[MODEL_FIELDS + 2] = {"a",   "b",   "long.name_3",
                                                          "Not", "_id", "_key"};

/* ------------------------------------------------------------------------------------------------
 * evaluation: 0 false, 1 true, 2 unknown */

enum { MODEL_UNKNOWN = 2 };

static inline int model_not(int a)
{
    return a == MODEL_UNKNOWN ? a : !a;
}

static inline int model_and(int a, int b)
{
    return a == 0 || b == 0 ? 0 : a == 1 && b == 1 ? 1 : MODEL_UNKNOWN;
}

static inline int model_or(int a, int b)
{
    return model_not(model_and(model_not(a), model_not(b)));
}

/* Reals that are not whole are small here, and integers are below 2^60. */
static inline int model_compare_numbers(const struct model_value *a, const struct model_value *b)
{
    const double far = 0x1p60;
    if (a->is_real && b->is_real)
        return (a->real > b->real) - (a->real < b->real);
    if (a->is_real)
        return -model_compare_numbers(b, a);
    if (b->is_real && (b->real > far || b->real < -far))
        return b->real > 0 ? -1 : 1;
    const int64_t whole = b->is_real ? (int64_t)b->real : b->integer;
    if (a->integer != whole || !b->is_real)
        return (a->integer > whole) - (a->integer < whole);
    return ((double)whole > b->real) - ((double)whole < b->real);
}

static inline int model_compare(const struct model_value *a, const struct model_value *b)
{
    if (a->type != b->type)
        return a->type < b->type ? -1 : 1;
    if (a->type == MODEL_NUMBER)
        return model_compare_numbers(a, b);
    return a->type == MODEL_TEXT ? strcmp(a->text, b->text) : 0;
}

static inline int model_compares(const struct model_value *value, enum model_operator operator,
                                 const struct model_value * operand)
{
    if (operand->type == MODEL_NULL)
        return MODEL_UNKNOWN;
    const int order = model_compare(value, operand);
    switch (operator) {
    case MODEL_LESS:
        return order < 0;
    case MODEL_LESS_OR_EQUAL:
        return order <= 0;
    case MODEL_GREATER:
        return order > 0;
    case MODEL_GREATER_OR_EQUAL:
        return order >= 0;
    default:
        return order == 0;
    }
}

/* A value that is neither null nor an array, by an operator that is not negated. */
static inline int model_scalar(const struct model_value *value, const struct model_node *leaf)
{
    const struct model_value *operands = leaf->operands;
    int result = 0;
    switch ((int)leaf->operator) {
    case MODEL_BETWEEN:
        return model_and(model_compares(value, MODEL_GREATER_OR_EQUAL, &operands[0]),
                         model_compares(value, MODEL_LESS_OR_EQUAL, &operands[1]));
    case MODEL_IN:
        for (int i = 0; i < leaf->operand_count; i++)
            result = model_or(result, model_compares(value, MODEL_EQUAL, &operands[i]));
        return result;
    case MODEL_STARTS:
        if (operands[0].type == MODEL_NULL)
            return MODEL_UNKNOWN;
        return value->type == MODEL_TEXT &&
               strncmp(value->text, operands[0].text, strlen(operands[0].text)) == 0;
    case MODEL_IS:
        return operands[0].type != MODEL_NULL && model_compare(value, &operands[0]) == 0;
    case MODEL_TRUTH:
        return value->type == MODEL_TRUE ||
               (value->type == MODEL_NUMBER && (value->integer != 0 || value->real != 0));
    default:
        return model_compares(value, leaf->operator, & operands[0]);
    }
}

static inline int model_plain(const struct model_value *value, const struct model_node *leaf)
{
    int result = 0;
    if (leaf->operator== MODEL_IN && leaf->operand_count == 0)
        return 0;
    if (value->type == MODEL_NULL)
        return leaf->operator== MODEL_IS ? leaf->operands[0].type == MODEL_NULL : MODEL_UNKNOWN;
    if (value->type != MODEL_TEXTS)
        return model_scalar(value, leaf);
    for (int i = 0; i < value->count; i++) {
        const struct model_value text = {.type = MODEL_TEXT, .text = value->texts[i]};
        result = model_or(result, model_scalar(&text, leaf));
    }
    return result;
}

static inline int model_leaf(const struct model_record *record, const struct model_node *leaf)
{
    struct model_node plain = *leaf;
    const struct model_value *value = &record->fields[leaf->field];
    switch ((int)leaf->operator) {
    case MODEL_UNEQUAL:
        plain.operator= MODEL_EQUAL;
        break;
    case MODEL_NOT_BETWEEN:
        plain.operator= MODEL_BETWEEN;
        break;
    case MODEL_NOT_IN:
        plain.operator= MODEL_IN;
        break;
    case MODEL_NOT_STARTS:
        plain.operator= MODEL_STARTS;
        break;
    case MODEL_IS_NOT:
        plain.operator= MODEL_IS;
        break;
    default:
        return model_plain(value, leaf);
    }
    return model_not(model_plain(value, &plain));
}

static inline int model_evaluate(const struct model_filter *filter, int at,
                                 const struct model_record *record)
{
    const struct model_node *node = &filter->nodes[at];
    if (node->kind == MODEL_LEAF)
        return model_leaf(record, node);
    const int left = model_evaluate(filter, node->left, record);
    if (node->kind == MODEL_NOT)
        return model_not(left);
    const int right = model_evaluate(filter, node->right, record);
    return node->kind == MODEL_AND ? model_and(left, right) : model_or(left, right);
}

/* ------------------------------------------------------------------------------------------------
 * printing */

struct model_text {
    char bytes[16384];
    size_t size;
};

static inline __attribute__((format(printf, 2, 3))) void model_print(struct model_text *out,
                                                                     const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const int length =
        vsnprintf(out->bytes + out->size, sizeof out->bytes - out->size, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof out->bytes - out->size)
        abort();
    out->size += (size_t)length;
}

static inline void model_print_number(struct model_text *out, const struct model_value *value)
{
    const size_t before = out->size;
    if (!value->is_real) {
        model_print(out, "%lld", (long long)value->integer);
        return;
    }
    model_print(out, "%.17g", value->real);
    if (strpbrk(out->bytes + before, ".e") == NULL)
        model_print(out, ".0");
}

static inline void model_print_sql_text(struct model_text *out, const char *text,
                                        const char *escaped, const char *behind)
{
    model_print(out, "'");
    for (; *text != '\0'; text++) {
        if (*text == '\'' || (*escaped != '\0' && strchr(escaped, *text) != NULL))
            model_print(out, *text == '\'' ? "'" : "\\");
        model_print(out, "%c", *text);
    }
    model_print(out, "%s'", behind);
}

static inline void model_print_sql(struct model_text *out, const struct model_value *value)
{
    static const char *const words[] = {"NULL", "FALSE", "true"};
    if (value->type <= MODEL_TRUE)
        model_print(out, "%s", words[value->type]);
    else if (value->type == MODEL_NUMBER)
        model_print_number(out, value);
    else
        model_print_sql_text(out, value->text, "", "");
}

static inline void model_print_json_text(struct model_text *out, const char *text)
{
    model_print(out, "\"");
    for (; *text != '\0'; text++)
        model_print(out, strchr("\"\\", *text) != NULL ? "\\%c" : "%c", *text);
    model_print(out, "\"");
}

static inline void model_print_json(struct model_text *out, const struct model_value *value)
{
    static const char *const words[] = {"null", "false", "true"};
    if (value->type <= MODEL_TRUE)
        model_print(out, "%s", words[value->type]);
    else if (value->type == MODEL_NUMBER)
        model_print_number(out, value);
    else if (value->type == MODEL_TEXT)
        model_print_json_text(out, value->text);
    for (int i = 0; value->type == MODEL_TEXTS && i < value->count; i++) {
        model_print(out, i == 0 ? "[" : ",");
        model_print_json_text(out, value->texts[i]);
    }
    if (value->type == MODEL_TEXTS)
        model_print(out, value->count == 0 ? "[]" : "]");
}

/* ---- as text; `sqlite`: as SQLite must be told to mean the same */

static inline void model_print_operand(struct model_text *out, const struct model_node *leaf, int i)
{
    if (leaf->parameters[i] != 0)
        model_print(out, "?%d", leaf->parameters[i]);
    else
        model_print_sql(out, &leaf->operands[i]);
}

static inline void model_print_pattern(struct model_text *out, const struct model_node *leaf)
{
    if (leaf->parameters[0] != 0 || leaf->operands[0].type == MODEL_NULL)
        model_print_operand(out, leaf, 0);
    else
        model_print_sql_text(out, leaf->operands[0].text, "\\%_", "%");
    model_print(out, " ESCAPE '\\'");
}

static const char *const model_sql_names[2][MODEL_FIELDS + 2] = {
    {"a", "b", "long.name_3", "\"Not\"", "_id", "_key"},
    {"a", "b", "\"long.name_3\"", "\"Not\"", "_id", "_key"}};

static inline void model_print_leaf(struct model_text *out, const struct model_node *leaf,
                                    int sqlite)
{
    static const char *const signs[MODEL_OPERATORS] = {
        "=",   "<>",      "<",     "<=",        ">",   ">=",      " BETWEEN", " NOT BETWEEN",
        " IN", " NOT IN", " LIKE", " NOT LIKE", " IS", " IS NOT", ""};
    const char *name = model_sql_names[sqlite][leaf->field];
    const int is_text_only = leaf->operator== MODEL_STARTS || leaf->operator== MODEL_NOT_STARTS;
    if (sqlite && (is_text_only || leaf->operator== MODEL_TRUTH))
        model_print(out, "CASE WHEN %s IS NULL %s THEN NULL WHEN typeof(%s) %s 'text' THEN ", name,
                    is_text_only && leaf->operands[0].type == MODEL_NULL ? "OR 1" : "", name,
                    is_text_only ? "=" : "<>");
    model_print(out, "%s%s ", name, signs[leaf->operator]);
    if (is_text_only) {
        model_print_pattern(out, leaf);
    } else if (leaf->operator== MODEL_IN || leaf->operator== MODEL_NOT_IN) {
        model_print(out, "(");
        for (int i = 0; i < leaf->operand_count; i++) {
            model_print(out, i == 0 ? "" : ", ");
            model_print_operand(out, leaf, i);
        }
        model_print(out, ")");
    } else {
        for (int i = 0; i < leaf->operand_count; i++) {
            model_print(out, i == 0 ? "" : " AND ");
            model_print_operand(out, leaf, i);
        }
    }
    if (sqlite && (is_text_only || leaf->operator== MODEL_TRUTH))
        model_print(out, " ELSE %d END", leaf->operator== MODEL_NOT_STARTS);
}

/* Parentheses where precedence needs them, and sometimes where it does not. above: the kind that
 * this is in. */
static inline void model_print_sql_node(struct model_text *out, const struct model_filter *filter,
                                        int at, enum model_kind above, int sqlite)
{
    const struct model_node *node = &filter->nodes[at];
    const int parentheses = (node->kind == MODEL_OR && above != MODEL_OR) ||
                            (node->kind == MODEL_AND && above == MODEL_NOT) || at % 3 == 0;
    model_print(out, parentheses ? "(" : "");
    if (node->kind == MODEL_LEAF) {
        model_print_leaf(out, node, sqlite);
    } else if (node->kind == MODEL_NOT) {
        model_print(out, "NOT ");
        model_print_sql_node(out, filter, node->left, MODEL_NOT, sqlite);
    } else {
        model_print_sql_node(out, filter, node->left, node->kind, sqlite);
        model_print(out, node->kind == MODEL_AND ? " and " : " OR ");
        model_print_sql_node(out, filter, node->right, node->kind, sqlite);
    }
    model_print(out, parentheses ? ")" : "");
}

/* ---- as JSON */

static inline void model_print_json_operand(struct model_text *out, const struct model_node *leaf,
                                            int i)
{
    if (leaf->parameters[i] != 0)
        model_print(out, "{\"$param\": %d}", leaf->parameters[i]);
    else
        model_print_json(out, &leaf->operands[i]);
}

/* 0: JSON has no words for it. */
static inline int model_print_json_leaf(struct model_text *out, const struct model_node *leaf)
{
    static const char *const words[MODEL_OPERATORS] = {
        "$eq", "$ne",  "$lt",     "$lte",    "$gt",     "$gte",    "$between", "$between",
        "$in", "$nin", "$prefix", "$prefix", "$exists", "$exists", ""};
    const int negate = leaf->operator== MODEL_NOT_BETWEEN || leaf->operator== MODEL_NOT_STARTS;
    const int is_array = leaf->operator>= MODEL_BETWEEN && leaf->operator<= MODEL_NOT_IN;
    const int is_null = leaf->operator== MODEL_IS || leaf->operator== MODEL_IS_NOT;
    if (leaf->operator== MODEL_TRUTH ||(is_null && leaf->operands[0].type != MODEL_NULL) ||
        (is_null && leaf->parameters[0] != 0))
        return 0;
    for (int i = 0; i < leaf->operand_count && !is_null; i++)
        if (leaf->operands[i].type == MODEL_NULL && leaf->parameters[i] == 0)
            return 0;
    model_print_json_text(out, model_names[leaf->field]);
    model_print(out, negate ? ": {\"$not\": {\"%s\": " : ": {\"%s\": ", words[leaf->operator]);
    model_print(out, is_array ? "[" : "");
    for (int i = 0; i < leaf->operand_count && !is_null; i++) {
        model_print(out, i == 0 ? "" : ", ");
        model_print_json_operand(out, leaf, i);
    }
    if (is_null)
        model_print(out, leaf->operator== MODEL_IS ? "false" : "true");
    model_print(out, is_array ? "]" : "");
    model_print(out, negate ? "}}" : "}");
    return 1;
}

static inline int model_print_json_node(struct model_text *out, const struct model_filter *filter,
                                        int at)
{
    const struct model_node *node = &filter->nodes[at];
    int good;
    model_print(out, "{");
    if (node->kind == MODEL_LEAF) {
        good = model_print_json_leaf(out, node);
    } else if (node->kind == MODEL_NOT) {
        model_print(out, "\"$not\": ");
        good = model_print_json_node(out, filter, node->left);
    } else {
        model_print(out, node->kind == MODEL_AND ? "\"$and\": [" : "\"$or\" : [ ");
        good = model_print_json_node(out, filter, node->left);
        model_print(out, ",\n");
        good = good && model_print_json_node(out, filter, node->right);
        model_print(out, "]");
    }
    model_print(out, "}");
    return good;
}

/* ------------------------------------------------------------------------------------------------
 * chance */

enum { MODEL_SCALARS_ONLY = 1, MODEL_PARAMETERS = 2 };

static inline struct model_value model_random_value(struct support_random *random, int flags)
{
    static const char *const texts[] = {"",   "a",  "ab",   "abc",  "b",        "A",
                                        "a_", "a%", "it's", "\\\"", "\xC3\xA9", "ab\x7F"};
    static const int64_t integers[] = {0,
                                       1,
                                       -1,
                                       2,
                                       5,
                                       INT64_C(9007199254740993),
                                       INT64_C(9007199254740992),
                                       -INT64_C(9007199254740993)};
    static const double reals[] = {0.0, 0.5, 1.0, -2.5, 9007199254740992.0, 1e300};
    struct model_value value = {.type = MODEL_NULL};
    switch (support_below(random, flags & MODEL_SCALARS_ONLY ? 6 : 8)) {
    case 0:
        break;
    case 1:
    case 2:
        value.type = MODEL_TEXT;
        value.text = texts[support_below(random, sizeof texts / sizeof texts[0])];
        break;
    case 3:
    case 4:
        value.type = MODEL_NUMBER;
        value.integer = integers[support_below(random, sizeof integers / sizeof integers[0])];
        break;
    case 5:
        value.type = MODEL_NUMBER;
        value.is_real = 1;
        value.real = reals[support_below(random, 6)];
        break;
    case 6:
        value.type = support_below(random, 2) ? MODEL_TRUE : MODEL_FALSE;
        break;
    default:
        value.type = MODEL_TEXTS;
        value.count = (int)support_below(random, 4);
        for (int i = 0; i < value.count; i++)
            value.texts[i] = texts[support_below(random, sizeof texts / sizeof texts[0])];
    }
    return value;
}

static inline void model_random_record(struct support_random *random, int flags, uint64_t id,
                                       struct model_record *record)
{
    static const char *const keys[] = {"a", "ab", "b", "key"};
    memset(record, 0, sizeof *record);
    record->id = id;
    for (int i = 0; i < MODEL_FIELDS; i++)
        record->fields[i] = model_random_value(random, flags);
    record->fields[MODEL_FIELDS].type = MODEL_NUMBER;
    record->fields[MODEL_FIELDS].integer = (int64_t)id;
    if (support_below(random, 2)) {
        record->fields[MODEL_FIELDS + 1].type = MODEL_TEXT;
        record->fields[MODEL_FIELDS + 1].text = keys[support_below(random, 4)];
    }
}

static inline void model_random_leaf(struct support_random *random, int flags,
                                     struct model_filter *filter, struct model_node *leaf)
{
    leaf->field = (int)support_below(random, MODEL_FIELDS + 2);
    leaf->operator=(enum model_operator) support_below(random, MODEL_OPERATORS);
    const int is_list = leaf->operator== MODEL_IN || leaf->operator== MODEL_NOT_IN;
    const int is_pair = leaf->operator== MODEL_BETWEEN || leaf->operator== MODEL_NOT_BETWEEN;
    const int is_text = leaf->operator== MODEL_STARTS || leaf->operator== MODEL_NOT_STARTS;
    leaf->operand_count = is_list   ? (int)support_below(random, MODEL_OPERANDS + 1)
                          : is_pair ? 2
                                    : leaf->operator!= MODEL_TRUTH;
    for (int i = 0; i < leaf->operand_count; i++) {
        struct model_value *value = &leaf->operands[i];
        do
            *value = model_random_value(random, flags);
        while (value->type == MODEL_TEXTS ||
               (is_text && value->type != MODEL_TEXT && value->type != MODEL_NULL));
        if (flags & MODEL_PARAMETERS && !is_text && support_below(random, 3) == 0)
            leaf->parameters[i] = ++filter->parameters;
    }
}

/* Returns the node. */
static inline int model_random_node(struct support_random *random, int flags, int depth,
                                    struct model_filter *filter)
{
    const int at = filter->count++;
    struct model_node *node = &filter->nodes[at];
    node->kind = depth == 0 ? MODEL_LEAF : (enum model_kind)support_below(random, 4);
    if (node->kind == MODEL_LEAF)
        model_random_leaf(random, flags, filter, node);
    else
        node->left = model_random_node(random, flags, depth - 1, filter);
    if (node->kind == MODEL_AND || node->kind == MODEL_OR)
        node->right = model_random_node(random, flags, depth - 1, filter);
    return at;
}

#endif
