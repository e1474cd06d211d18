/* filter_json.c: filters written as JSON, in the manner of MongoDB's queries.
 *
 *   filter      { member , ... }               all of them
 *   member      "$and": [ filter , ... ]       "$or": [ filter , ... ]       "$not": filter
 *               "field": value                 "field": condition
 *   condition   { operator , ... }             all of them
 *   operator    "$eq" "$ne" "$lt" "$lte" "$gt" "$gte" "$contains": value     "$in" "$nin": list
 *               "$between": [ value , value ]  "$prefix": text               "$exists": true, false
 *               "$not": condition
 *   list        [ value , ... ]                parameter
 *   value       null true false 12 -1.5e3 "text"    parameter
 *   parameter   { "$param": 1 }                { "$param": "name" }
 *
 * Null alone, and that of $eq and $ne, means IS NULL; elsewhere it would match nothing and is
 * refused. Objects and arrays that hold filters or conditions are open frames, on a stack of
 * FILTER_DEPTH_MAX. */
#include "filter_build.h"
#include "json.h"

#include <stdlib.h>
#include <string.h>

enum filter_json_kind { FILTER_JSON_MEMBERS, FILTER_JSON_LIST, FILTER_JSON_CONDITION };

struct filter_json_frame {
    enum filter_json_kind kind;
    size_t entries;          /* read so far */
    struct filter_side side; /* FILTER_JSON_CONDITION */
};

struct filter_json_parser {
    struct filter_builder *builder;
    struct json_reader reader;
    struct filter_json_frame frames[FILTER_DEPTH_MAX];
    uint32_t depth;
};

enum filter_json_takes {
    FILTER_JSON_VALUE,
    FILTER_JSON_VALUES, /* an array */
    FILTER_JSON_EXISTS,
    FILTER_JSON_NOT
};

/* A name that begins with '$', as written, and what it takes. */
struct filter_json_word {
    const char *name;
    enum filter_json_takes takes;
    enum filter_operator operator;
    int negate;
    int takes_null; /* as IS NULL */
};

static const struct filter_json_word filter_json_words[] = {
    {"$eq", FILTER_JSON_VALUE, FILTER_EQUAL, 0, 1},
    {"$ne", FILTER_JSON_VALUE, FILTER_EQUAL, 1, 1},
    {"$lt", FILTER_JSON_VALUE, FILTER_LESS, 0, 0},
    {"$lte", FILTER_JSON_VALUE, FILTER_LESS_OR_EQUAL, 0, 0},
    {"$gt", FILTER_JSON_VALUE, FILTER_GREATER, 0, 0},
    {"$gte", FILTER_JSON_VALUE, FILTER_GREATER_OR_EQUAL, 0, 0},
    {"$contains", FILTER_JSON_VALUE, FILTER_EQUAL, 0, 0},
    {"$prefix", FILTER_JSON_VALUE, FILTER_PREFIX, 0, 0},
    {"$in", FILTER_JSON_VALUES, FILTER_IN, 0, 0},
    {"$nin", FILTER_JSON_VALUES, FILTER_IN, 1, 0},
    {"$between", FILTER_JSON_VALUES, FILTER_BETWEEN, 0, 0},
    {"$exists", FILTER_JSON_EXISTS, FILTER_IS, 0, 0},
    {"$not", FILTER_JSON_NOT, FILTER_IS, 0, 0},
};

/* After an error of the reader, whose sentence begins "filter: byte 17": that place is shown. */
static int filter_json_failed(const struct filter_json_parser *parser, int code)
{
    const char *number = strstr(error_text(), "byte ");
    size_t at = parser->reader.at;
    if (number != NULL)
        at = (size_t)strtoull(number + strlen("byte "), NULL, 10);
    return filter_show_place(parser->builder, code,
                             at < parser->reader.size ? at : parser->reader.size);
}

static int filter_json_expected(struct filter_json_parser *parser, const char *what)
{
    json_next(&parser->reader);
    return filter_json_failed(parser, json_expected(&parser->reader, parser->reader.at, what));
}

static int filter_json_take(struct filter_json_parser *parser, char byte, const char *what)
{
    int code = json_take(&parser->reader, byte, what);
    return code == OMENDB_OK ? code : filter_json_failed(parser, code);
}

/* The text that begins there, after white space. */
static int filter_json_take_text(struct filter_json_parser *parser, const char *what,
                                 const uint8_t **text, uint32_t *size)
{
    struct filter_builder *builder = parser->builder;
    uint8_t *out = builder->filter->bytes + builder->bytes_used;
    size_t bytes;
    if (json_next(&parser->reader) != '"')
        return filter_json_expected(parser, what);
    int code = json_take_text(&parser->reader, out,
                              builder->filter->byte_capacity - builder->bytes_used, &bytes);
    if (code != OMENDB_OK)
        return filter_json_failed(parser, code);
    builder->bytes_used += bytes;
    *text = out;
    *size = (uint32_t)bytes;
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ frames */

static int filter_json_push(struct filter_json_parser *parser, enum filter_json_kind kind,
                            enum filter_node_kind group, int negate, const struct filter_side *side)
{
    if (parser->depth == FILTER_DEPTH_MAX)
        return filter_fail(parser->builder, OMENDB_TOOBIG, parser->reader.at,
                           "more than %d objects and arrays are open", FILTER_DEPTH_MAX);
    struct filter_json_frame *frame = &parser->frames[parser->depth];
    memset(frame, 0, sizeof *frame);
    frame->kind = kind;
    if (side != NULL)
        frame->side = *side;
    int code = filter_open_group(parser->builder, group, negate);
    parser->depth += code == OMENDB_OK;
    return code;
}

/* An object without members is a filter that all records match. */
static int filter_json_pop(struct filter_json_parser *parser)
{
    const struct filter_json_frame *frame = &parser->frames[parser->depth - 1];
    struct filter_side all = {.subject = FILTER_CONSTANT,
                              .operand = {.value = {.type = DOCUMENT_TRUE}}};
    int code = OMENDB_OK;
    if (frame->entries == 0 && frame->kind != FILTER_JSON_MEMBERS)
        return filter_fail(parser->builder, OMENDB_INVALID, parser->reader.at,
                           frame->kind == FILTER_JSON_LIST
                               ? "expected a filter, not ']': $and and $or have at least one"
                               : "expected an operator, not '}'");
    all.at = parser->reader.at;
    if (frame->entries == 0)
        code = filter_add_leaf(parser->builder, &all, FILTER_TRUTH, 0);
    parser->reader.at++;
    parser->depth--;
    filter_close_group(parser->builder);
    return code;
}

static int filter_json_open_members(struct filter_json_parser *parser, int negate)
{
    int code = filter_json_take(parser, '{', "a filter: an object");
    return code == OMENDB_OK
               ? filter_json_push(parser, FILTER_JSON_MEMBERS, FILTER_AND, negate, NULL)
               : code;
}

static int filter_json_open_condition(struct filter_json_parser *parser, int negate,
                                      const struct filter_side *side)
{
    int code = filter_json_take(parser, '{', "a condition: an object of operators");
    return code == OMENDB_OK
               ? filter_json_push(parser, FILTER_JSON_CONDITION, FILTER_AND, negate, side)
               : code;
}

/* ------------------------------------------------------------------ values */

/* Whether the object that begins here is a parameter. */
static int filter_json_is_parameter(const struct filter_json_parser *parser)
{
    static const char name[] = "\"$param\"";
    struct json_reader reader = parser->reader;
    if (json_next(&reader) != '{')
        return 0;
    reader.at++;
    json_next(&reader);
    return reader.size - reader.at >= sizeof name - 1 &&
           memcmp(reader.text + reader.at, name, sizeof name - 1) == 0;
}

static int filter_json_parameter(struct filter_json_parser *parser, struct filter_operand *operand)
{
    struct filter_builder *builder = parser->builder;
    struct json_reader *reader = &parser->reader;
    struct json_number number;
    const uint8_t *name;
    uint32_t size;
    reader->at = (size_t)(strchr(builder->text + reader->at, '"') - builder->text);
    reader->at += strlen("\"$param\"");
    int code = filter_json_take(parser, ':', "':' after \"$param\"");
    if (code != OMENDB_OK)
        return code;
    const int first = json_next(reader);
    const size_t at = reader->at;
    if (first == '"') {
        code = filter_json_take_text(parser, "", &name, &size);
        if (code == OMENDB_OK)
            code = filter_add_named(builder, at, name, size, operand);
    } else if (first >= '0' && first <= '9') {
        code = json_take_number(reader, &number);
        if (code != OMENDB_OK)
            return filter_json_failed(parser, code);
        code = filter_add_parameter(builder, at, number.is_integer ? (uint64_t)number.integer : 0,
                                    operand);
    } else {
        return filter_json_expected(parser, "the number or the name of a parameter");
    }
    return code == OMENDB_OK ? filter_json_take(parser, '}', "'}' after a parameter") : code;
}

static int filter_json_word_value(struct filter_json_parser *parser, const char *word,
                                  enum document_type type, struct filter_operand *operand)
{
    int code = json_take_word(&parser->reader, word);
    if (code != OMENDB_OK)
        return filter_json_failed(parser, code);
    operand->value.type = type;
    return OMENDB_OK;
}

static int filter_json_number(struct filter_json_parser *parser, struct filter_operand *operand)
{
    struct json_number number;
    const size_t at = parser->reader.at;
    int code = json_take_number(&parser->reader, &number);
    return code == OMENDB_OK ? filter_number(parser->builder, at, parser->reader.at - at, operand)
                             : filter_json_failed(parser, code);
}

static int filter_json_value(struct filter_json_parser *parser, struct filter_operand *operand)
{
    const int first = json_next(&parser->reader);
    const uint8_t *text;
    uint32_t size;
    *operand = (struct filter_operand){.parameter = 0};
    if (filter_json_is_parameter(parser))
        return filter_json_parameter(parser, operand);
    if (first == 'n')
        return filter_json_word_value(parser, "null", DOCUMENT_NULL, operand);
    if (first == 't')
        return filter_json_word_value(parser, "true", DOCUMENT_TRUE, operand);
    if (first == 'f')
        return filter_json_word_value(parser, "false", DOCUMENT_FALSE, operand);
    if (first == '-' || (first >= '0' && first <= '9'))
        return filter_json_number(parser, operand);
    if (first == '[')
        return filter_json_expected(parser, "a value, or an operator that takes an array ($in)");
    int code = filter_json_take_text(parser, "a value", &text, &size);
    if (code == OMENDB_OK)
        filter_text_operand(text, size, operand);
    return code;
}

/* Whether the operand is null as written, which a parameter is not. */
static int filter_json_is_null(const struct filter_operand *operand)
{
    return operand->parameter == 0 && operand->value.type == DOCUMENT_NULL;
}

/* ------------------------------------------------------------------ operators */

static int filter_json_add_value(struct filter_json_parser *parser, const struct filter_side *side,
                                 const struct filter_json_word *word)
{
    struct filter_operand operand;
    enum filter_operator operator= word->operator;
    json_next(&parser->reader);
    const size_t at = parser->reader.at;
    int code = filter_json_value(parser, &operand);
    if (code != OMENDB_OK)
        return code;
    const int is_null = filter_json_is_null(&operand);
    if (is_null && !word->takes_null)
        return filter_fail(parser->builder, OMENDB_INVALID, at,
                           "null compares with nothing; see $exists");
    if (operator== FILTER_PREFIX && operand.parameter == 0 && operand.value.type != DOCUMENT_TEXT)
        return filter_fail(parser->builder, OMENDB_INVALID, at, "$prefix takes a text");
    if (is_null)
        operator= FILTER_IS;
    code = filter_add_leaf(parser->builder, side, operator, word->negate);
    return code == OMENDB_OK ? filter_add_operand(parser->builder, &operand) : code;
}

/* The values of an array, up to its end, for the leaf that was added last. */
static int filter_json_array(struct filter_json_parser *parser)
{
    struct filter_operand operand;
    int code = filter_json_take(parser, '[', "an array of values");
    if (code != OMENDB_OK)
        return code;
    for (size_t count = 0; json_next(&parser->reader) != ']' && code == OMENDB_OK; count++) {
        if (count > 0)
            code = filter_json_take(parser, ',', "',' or ']'");
        if (code != OMENDB_OK)
            return code;
        json_next(&parser->reader);
        const size_t at = parser->reader.at;
        code = filter_json_value(parser, &operand);
        if (code == OMENDB_OK && filter_json_is_null(&operand))
            return filter_fail(parser->builder, OMENDB_INVALID, at,
                               "null compares with nothing; see $exists");
        if (code == OMENDB_OK)
            code = filter_add_operand(parser->builder, &operand);
    }
    return code == OMENDB_OK ? filter_json_take(parser, ']', "']'") : code;
}

static int filter_json_add_values(struct filter_json_parser *parser, const struct filter_side *side,
                                  const struct filter_json_word *word)
{
    const omendb_filter *filter = parser->builder->filter;
    struct filter_operand operand;
    json_next(&parser->reader);
    const size_t at = parser->reader.at;
    int code = filter_add_leaf(parser->builder, side, word->operator, word->negate);
    if (code != OMENDB_OK)
        return code;
    if (word->operator== FILTER_IN && filter_json_is_parameter(parser)) {
        code = filter_json_parameter(parser, &operand);
        return code == OMENDB_OK ? filter_add_operand(parser->builder, &operand) : code;
    }
    code = filter_json_array(parser);
    if (code == OMENDB_OK &&
        word->operator== FILTER_BETWEEN && filter->leaves[filter->leaf_count - 1].operand_count !=
        2)
        return filter_fail(parser->builder, OMENDB_INVALID, at, "$between takes two values");
    return code;
}

static int filter_json_add_exists(struct filter_json_parser *parser, const struct filter_side *side)
{
    const int first = json_next(&parser->reader);
    struct filter_operand operand;
    if (first != 't' && first != 'f')
        return filter_json_expected(parser, "true or false");
    int code = filter_json_value(parser, &operand);
    if (code != OMENDB_OK)
        return code;
    code = filter_add_leaf(parser->builder, side, FILTER_IS, operand.value.type == DOCUMENT_TRUE);
    operand.value.type = DOCUMENT_NULL;
    return code == OMENDB_OK ? filter_add_operand(parser->builder, &operand) : code;
}

static int filter_json_is_word(const char *word, const uint8_t *name, uint32_t size)
{
    return strlen(word) == size && memcmp(word, name, size) == 0;
}

/* An entry of a condition. */
static int filter_json_operator(struct filter_json_parser *parser, const uint8_t *name,
                                uint32_t size, size_t at)
{
    /* A copy: a frame that is opened does not move it, but one that is closed may. */
    const struct filter_side side = parser->frames[parser->depth - 1].side;
    const struct filter_json_word *word = NULL;
    const size_t count = sizeof filter_json_words / sizeof filter_json_words[0];
    for (size_t i = 0; i < count && word == NULL; i++)
        if (filter_json_is_word(filter_json_words[i].name, name, size))
            word = &filter_json_words[i];
    if (word == NULL)
        return filter_fail(parser->builder, OMENDB_INVALID, at,
                           "expected an operator: $eq, $ne, $lt, $lte, $gt, $gte, $between, $in, "
                           "$nin, $prefix, $contains, $exists or $not");
    switch (word->takes) {
    case FILTER_JSON_VALUE:
        return filter_json_add_value(parser, &side, word);
    case FILTER_JSON_VALUES:
        return filter_json_add_values(parser, &side, word);
    case FILTER_JSON_EXISTS:
        return filter_json_add_exists(parser, &side);
    default:
        return filter_json_open_condition(parser, 1, &side);
    }
}

/* A member of a filter. */
static int filter_json_member(struct filter_json_parser *parser, const uint8_t *name, uint32_t size,
                              size_t at)
{
    static const struct filter_json_word equal = {"", FILTER_JSON_VALUE, FILTER_EQUAL, 0, 1};
    struct filter_side side = {.at = at};
    const int is_and = filter_json_is_word("$and", name, size);
    int code;
    if (is_and || filter_json_is_word("$or", name, size)) {
        code = filter_json_take(parser, '[', "an array of filters");
        return code == OMENDB_OK ? filter_json_push(parser, FILTER_JSON_LIST,
                                                    is_and ? FILTER_AND : FILTER_OR, 0, NULL)
                                 : code;
    }
    if (filter_json_is_word("$not", name, size))
        return filter_json_open_members(parser, 1);
    if (size > 0 && name[0] == '$')
        return filter_fail(parser->builder, OMENDB_INVALID, at,
                           "expected the name of a field, $and, $or or $not");
    code = filter_name_side(parser->builder, name, size, 0, &side);
    if (code != OMENDB_OK)
        return code;
    return json_next(&parser->reader) == '{' && !filter_json_is_parameter(parser)
               ? filter_json_open_condition(parser, 0, &side)
               : filter_json_add_value(parser, &side, &equal);
}

/* The end of the frame, or one entry of it. */
static int filter_json_entry(struct filter_json_parser *parser)
{
    struct filter_json_frame *frame = &parser->frames[parser->depth - 1];
    const int is_list = frame->kind == FILTER_JSON_LIST;
    const int is_condition = frame->kind == FILTER_JSON_CONDITION;
    const uint8_t *name;
    uint32_t size;
    if (json_next(&parser->reader) == (is_list ? ']' : '}'))
        return filter_json_pop(parser);
    int code = OMENDB_OK;
    if (frame->entries++ > 0)
        code = filter_json_take(parser, ',', is_list ? "',' or ']'" : "',' or '}'");
    if (code != OMENDB_OK || is_list)
        return code == OMENDB_OK ? filter_json_open_members(parser, 0) : code;
    json_next(&parser->reader);
    const size_t at = parser->reader.at;
    code = filter_json_take_text(parser, is_condition ? "an operator" : "the name of a field",
                                 &name, &size);
    if (code == OMENDB_OK)
        code = filter_json_take(parser, ':', "':' after a name");
    if (code != OMENDB_OK)
        return code;
    return is_condition ? filter_json_operator(parser, name, size, at)
                        : filter_json_member(parser, name, size, at);
}

OMENDB_INTERNAL int filter_json(struct filter_builder *builder)
{
    struct filter_json_parser parser = {.builder = builder};
    json_begin(&parser.reader, "filter", builder->text, builder->size);
    int code = filter_json_open_members(&parser, 0);
    while (code == OMENDB_OK && parser.depth > 0)
        code = filter_json_entry(&parser);
    if (code != OMENDB_OK)
        return code;
    code = json_take_end(&parser.reader);
    return code == OMENDB_OK ? code : filter_json_failed(&parser, code);
}
