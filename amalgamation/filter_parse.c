/* filter_parse.c: filters written as SQL writes conditions. What SQL leaves open is as in SQLite.
 *
 *   filter      any            with as many as FILTER_DEPTH_MAX parentheses open
 *   any         all { OR all }
 *   all         one { AND one }
 *   one         { NOT } ( "(" any ")" | condition )
 *   condition   side                                            is it true?
 *               side ( = == <> != < <= > >= ) side
 *               side IS [NOT] side
 *               side [NOT] IN ( "(" [ value { , value } ] ")" | parameter | field )
 *               side [NOT] BETWEEN value AND value
 *               side [NOT] LIKE value [ ESCAPE 'character' ]
 *               side CONTAINS value
 *   side        field | value
 *   value       NULL TRUE FALSE 12 -1.5e3 'it''s' ? ?3 :name
 *   field       name | "any name"
 *
 * One of two sides is a value: fields are not compared with each other, so that every condition is
 * a field and a set. One token is looked at ahead; the stack of parentheses is that of the groups.
 */
#include "filter_build.h"

#include <string.h>

enum parse_kind {
    PARSE_END,
    PARSE_NAME,   /* field */
    PARSE_QUOTED, /* "field" */
    PARSE_TEXT,
    PARSE_NUMBER,
    PARSE_NUMBERED, /* ? and ?3 */
    PARSE_NAMED,    /* :name */
    PARSE_OPEN,
    PARSE_CLOSE,
    PARSE_COMMA,
    PARSE_EQUAL,
    PARSE_UNEQUAL,
    PARSE_LESS,
    PARSE_LESS_OR_EQUAL,
    PARSE_GREATER,
    PARSE_GREATER_OR_EQUAL,
    PARSE_AND,
    PARSE_BETWEEN,
    PARSE_CONTAINS,
    PARSE_ESCAPE,
    PARSE_FALSE,
    PARSE_IN,
    PARSE_IS,
    PARSE_LIKE,
    PARSE_NOT,
    PARSE_NULL,
    PARSE_OR,
    PARSE_TRUE
};

struct parse_token {
    enum parse_kind kind;
    size_t at, size;
};

struct filter_parser {
    struct filter_builder *builder;
    struct parse_token token, previous;
};

/* ------------------------------------------------------------------ tokens */

static int parse_is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static int parse_begins_name(char byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte == '_' ||
           (uint8_t)byte >= 0x80;
}

static int parse_is_in_name(char byte)
{
    return parse_begins_name(byte) || parse_is_digit(byte) || byte == '.';
}

static int parse_is_space(char byte)
{
    return byte == ' ' || (byte >= '\t' && byte <= '\r');
}

/* The byte there; 0 behind the end, as a filter has no NUL. */
static char parse_byte(const struct filter_builder *builder, size_t at)
{
    return at < builder->size ? builder->text[at] : '\0';
}

static size_t parse_name_end(const struct filter_builder *builder, size_t at)
{
    while (parse_is_in_name(parse_byte(builder, at)))
        at++;
    return at;
}

static enum parse_kind parse_word(const char *word, size_t size)
{
    static const char *const words[] = {"and", "between", "contains", "escape", "false", "in",
                                        "is",  "like",    "not",      "null",   "or",    "true"};
    char lower[9];
    if (size >= sizeof lower)
        return PARSE_NAME;
    for (size_t i = 0; i < size; i++)
        lower[i] = (char)(word[i] >= 'A' && word[i] <= 'Z' ? word[i] + 32 : word[i]);
    lower[size] = '\0';
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(lower, words[i]) == 0)
            return (enum parse_kind)(PARSE_AND + i);
    return PARSE_NAME;
}

static int parse_quoted(const struct filter_builder *builder, struct parse_token *token)
{
    const char quote = builder->text[token->at];
    token->kind = quote == '"' ? PARSE_QUOTED : PARSE_TEXT;
    for (size_t at = token->at + 1; at < builder->size; at++) {
        if (builder->text[at] != quote)
            continue;
        if (parse_byte(builder, at + 1) != quote) {
            token->size = at + 1 - token->at;
            return OMENDB_OK;
        }
        at++;
    }
    return filter_fail(builder, OMENDB_INVALID, token->at, "the %c that begins here does not end",
                       quote);
}

static size_t parse_digits_end(const struct filter_builder *builder, size_t at)
{
    while (parse_is_digit(parse_byte(builder, at)))
        at++;
    return at;
}

/* A sign may be first. */
static int parse_number(const struct filter_builder *builder, struct parse_token *token)
{
    const char first = builder->text[token->at];
    size_t at = token->at + (first == '-' || first == '+');
    while (parse_is_space(parse_byte(builder, at)))
        at++;
    const size_t whole = at;
    at = parse_digits_end(builder, at);
    size_t digits = at - whole;
    if (parse_byte(builder, at) == '.') {
        const size_t fraction = at + 1;
        at = parse_digits_end(builder, fraction);
        digits += at - fraction;
    }
    if (digits == 0)
        return filter_fail(builder, OMENDB_INVALID, at, "expected a digit");
    if ((parse_byte(builder, at) | 0x20) == 'e') {
        const char sign = parse_byte(builder, at + 1);
        const size_t exponent = at + 1 + (sign == '-' || sign == '+');
        at = parse_digits_end(builder, exponent);
        if (at == exponent)
            return filter_fail(builder, OMENDB_INVALID, at, "expected a digit of the exponent");
    }
    if (parse_is_in_name(parse_byte(builder, at)))
        return filter_fail(builder, OMENDB_INVALID, at, "a number does not go on like this");
    token->kind = PARSE_NUMBER;
    token->size = at - token->at;
    return OMENDB_OK;
}

static int parse_parameter(const struct filter_builder *builder, struct parse_token *token)
{
    const size_t first = token->at + 1;
    size_t end;
    token->kind = builder->text[token->at] == '?' ? PARSE_NUMBERED : PARSE_NAMED;
    if (token->kind == PARSE_NUMBERED)
        end = parse_digits_end(builder, first);
    else
        end = parse_name_end(builder, first);
    token->size = end - token->at;
    if (token->kind == PARSE_NAMED && end == first)
        return filter_fail(builder, OMENDB_INVALID, first, "expected the name of a parameter");
    if (token->kind == PARSE_NUMBERED && parse_is_in_name(parse_byte(builder, end)))
        return filter_fail(builder, OMENDB_INVALID, end, "expected the number of a parameter");
    return OMENDB_OK;
}

/* 1: a sign stands there, of one or two bytes. */
static int parse_sign(const struct filter_builder *builder, struct parse_token *token)
{
    static const struct {
        char bytes[3];
        enum parse_kind kind;
    } signs[] = {{"==", PARSE_EQUAL},
                 {"<>", PARSE_UNEQUAL},
                 {"!=", PARSE_UNEQUAL},
                 {"<=", PARSE_LESS_OR_EQUAL},
                 {">=", PARSE_GREATER_OR_EQUAL},
                 {"=", PARSE_EQUAL},
                 {"<", PARSE_LESS},
                 {">", PARSE_GREATER},
                 {"(", PARSE_OPEN},
                 {")", PARSE_CLOSE},
                 {",", PARSE_COMMA}};
    for (size_t i = 0; i < sizeof signs / sizeof signs[0]; i++) {
        const size_t size = strlen(signs[i].bytes);
        if (builder->size - token->at < size ||
            memcmp(builder->text + token->at, signs[i].bytes, size) != 0)
            continue;
        token->kind = signs[i].kind;
        token->size = size;
        return 1;
    }
    return 0;
}

/* What other languages write with a sign that has no meaning here. */
static int parse_refuse_sign(const struct filter_builder *builder, size_t at)
{
    static const char *const hints[][2] = {{"&", "; write AND"},
                                           {"|", "; write OR"},
                                           {"!", "; write NOT, or != between two sides"},
                                           {"$@", "; parameters are ?, ?1 or :name"},
                                           {";", "; a filter is one condition, which nothing ends"},
                                           {"#", "; there are no comments"},
                                           {"*/%^~", "; there is no arithmetic"},
                                           {"`[", "; names are in double quotes"}};
    char quoted[FILTER_QUOTE_BYTES];
    const char *hint = "";
    for (size_t i = 0; i < sizeof hints / sizeof hints[0]; i++)
        if (strchr(hints[i][0], builder->text[at]) != NULL)
            hint = hints[i][1];
    filter_quote(builder, at, 1, quoted);
    return filter_fail(builder, OMENDB_INVALID, at, "nothing begins with %s%s", quoted, hint);
}

static int parse_token_at(const struct filter_builder *builder, struct parse_token *token)
{
    const char byte = parse_byte(builder, token->at);
    token->kind = PARSE_END;
    token->size = 0;
    if (token->at == builder->size || parse_sign(builder, token))
        return OMENDB_OK;
    if (byte == '\'' || byte == '"')
        return parse_quoted(builder, token);
    if (byte == '?' || byte == ':')
        return parse_parameter(builder, token);
    if (byte == '-' && parse_byte(builder, token->at + 1) == '-')
        return filter_fail(builder, OMENDB_INVALID, token->at, "there are no comments");
    if (parse_is_digit(byte) || byte == '-' || byte == '+' || byte == '.')
        return parse_number(builder, token);
    if (!parse_begins_name(byte))
        return parse_refuse_sign(builder, token->at);
    token->size = parse_name_end(builder, token->at) - token->at;
    token->kind = parse_word(builder->text + token->at, token->size);
    return OMENDB_OK;
}

static int parse_next(struct filter_parser *parser)
{
    const struct filter_builder *builder = parser->builder;
    struct parse_token token = {PARSE_END, parser->token.at + parser->token.size, 0};
    while (token.at < builder->size && parse_is_space(builder->text[token.at]))
        token.at++;
    parser->previous = parser->token;
    parser->token = token;
    return parse_token_at(builder, &parser->token);
}

static int parse_expected(const struct filter_parser *parser, const char *what)
{
    char after[FILTER_QUOTE_BYTES];
    if (parser->previous.size == 0)
        return filter_fail(parser->builder, OMENDB_INVALID, parser->token.at, "expected %s", what);
    filter_quote(parser->builder, parser->previous.at, parser->previous.size, after);
    return filter_fail(parser->builder, OMENDB_INVALID, parser->token.at, "expected %s after %s",
                       what, after);
}

/* Behind a field or a value alone: in other languages more could follow. */
static int parse_expected_comparison(const struct filter_parser *parser, const char *end)
{
    char after[FILTER_QUOTE_BYTES];
    filter_quote(parser->builder, parser->previous.at, parser->previous.size, after);
    return filter_fail(parser->builder, OMENDB_INVALID, parser->token.at,
                       "expected a comparison (=, <, IN, LIKE, ...), AND, OR or %s after %s; there "
                       "are no functions and no arithmetic",
                       end, after);
}

/* Goes over the token if it is of this kind; 0 for another, or after an error, which stays in
 * *code. */
static int parse_skip(struct filter_parser *parser, enum parse_kind kind, int *code)
{
    if (*code != OMENDB_OK || parser->token.kind != kind)
        return 0;
    *code = parse_next(parser);
    return *code == OMENDB_OK;
}

/* ------------------------------------------------------------------ fields and values */

/* What stands between quotes, of which each that is inside is there twice. */
static const uint8_t *parse_unquote(struct filter_builder *builder, const struct parse_token *token,
                                    uint32_t *size)
{
    const char quote = builder->text[token->at];
    uint8_t *out = builder->filter->bytes + builder->bytes_used;
    *size = 0;
    for (size_t i = token->at + 1; i + 1 < token->at + token->size; i++) {
        out[(*size)++] = (uint8_t)builder->text[i];
        i += builder->text[i] == quote;
    }
    builder->bytes_used += *size;
    return out;
}

static int parse_numbered(struct filter_builder *builder, const struct parse_token *token,
                          struct filter_operand *operand)
{
    uint64_t number = builder->filter->parameter_count + 1;
    if (token->size > 1) {
        number = 0;
        for (size_t i = 1; i < token->size && number <= FILTER_PARAMETERS_MAX; i++)
            number = number * 10 + (uint64_t)(builder->text[token->at + i] - '0');
    }
    return filter_add_parameter(builder, token->at, number, operand);
}

static int parse_value_of(struct filter_builder *builder, const struct parse_token *token,
                          struct filter_operand *operand)
{
    uint32_t size;
    const uint8_t *text;
    *operand = (struct filter_operand){.parameter = 0};
    switch (token->kind) {
    case PARSE_FALSE:
        operand->value.type = DOCUMENT_FALSE;
        return OMENDB_OK;
    case PARSE_TRUE:
        operand->value.type = DOCUMENT_TRUE;
        return OMENDB_OK;
    case PARSE_NUMBER:
        return filter_number(builder, token->at, token->size, operand);
    case PARSE_NUMBERED:
        return parse_numbered(builder, token, operand);
    case PARSE_NAMED:
        size = (uint32_t)token->size - 1;
        text = filter_keep_text(builder, token->at + 1, size);
        return filter_add_named(builder, token->at, text, size, operand);
    case PARSE_TEXT:
        text = parse_unquote(builder, token, &size);
        filter_text_operand(text, size, operand);
        return OMENDB_OK;
    default: /* PARSE_NULL */
        return OMENDB_OK;
    }
}

static int parse_is_value(enum parse_kind kind)
{
    return (kind >= PARSE_TEXT && kind <= PARSE_NAMED) || kind == PARSE_FALSE ||
           kind == PARSE_TRUE || kind == PARSE_NULL;
}

static int parse_value(struct filter_parser *parser, struct filter_operand *operand)
{
    if (!parse_is_value(parser->token.kind))
        return parse_expected(parser, "a value");
    int code = parse_value_of(parser->builder, &parser->token, operand);
    return code == OMENDB_OK ? parse_next(parser) : code;
}

static int parse_field(struct filter_parser *parser, struct filter_side *side)
{
    struct filter_builder *builder = parser->builder;
    const struct parse_token *token = &parser->token;
    uint32_t size = (uint32_t)token->size;
    const uint8_t *name = token->kind == PARSE_QUOTED ? parse_unquote(builder, token, &size)
                                                      : filter_keep_text(builder, token->at, size);
    int code = filter_name_side(builder, name, size, token->kind == PARSE_QUOTED, side);
    return code == OMENDB_OK ? parse_next(parser) : code;
}

/* expected: what is, for the error. */
static int parse_side(struct filter_parser *parser, const char *expected, struct filter_side *side)
{
    *side = (struct filter_side){.subject = FILTER_CONSTANT, .at = parser->token.at};
    if (parser->token.kind == PARSE_NAME || parser->token.kind == PARSE_QUOTED)
        return parse_field(parser, side);
    return parse_is_value(parser->token.kind) ? parse_value(parser, &side->operand)
                                              : parse_expected(parser, expected);
}

/* ------------------------------------------------------------------ conditions */

/* One operand, and its leaf. */
static int parse_add(struct filter_parser *parser, const struct filter_side *side,
                     enum filter_operator operator, int negate,
                     const struct filter_operand *operand)
{
    int code = filter_add_leaf(parser->builder, side, operator, negate);
    return code == OMENDB_OK ? filter_add_operand(parser->builder, operand) : code;
}

/* What the operator is for sides the other way round. */
static enum filter_operator parse_mirror(enum filter_operator operator)
{
    switch (operator) {
    case FILTER_LESS:
        return FILTER_GREATER;
    case FILTER_LESS_OR_EQUAL:
        return FILTER_GREATER_OR_EQUAL;
    case FILTER_GREATER:
        return FILTER_LESS;
    case FILTER_GREATER_OR_EQUAL:
        return FILTER_LESS_OR_EQUAL;
    default:
        return operator;
    }
}

/* Mostly the second one, which was read last, was meant to be a text. */
static int parse_refuse_fields(const struct filter_parser *parser, size_t at)
{
    const size_t quote = parser->previous.kind == PARSE_QUOTED;
    char text[FILTER_QUOTE_BYTES];
    filter_quote(parser->builder, at + quote, parser->previous.size - 2 * quote, text);
    return filter_fail(parser->builder, OMENDB_INVALID, at,
                       "two fields cannot be compared; texts are in single quotes: %s", text);
}

static int parse_comparison(struct filter_parser *parser, const struct filter_side *left,
                            enum filter_operator operator, int negate)
{
    struct filter_side right;
    int code = parse_side(parser, "a value", &right);
    if (code != OMENDB_OK)
        return code;
    if (right.subject == FILTER_CONSTANT)
        return parse_add(parser, left, operator, negate, &right.operand);
    if (left->subject == FILTER_CONSTANT)
        return parse_add(parser, &right, parse_mirror(operator), negate, &left->operand);
    return parse_refuse_fields(parser, right.at);
}

static int parse_list(struct filter_parser *parser)
{
    struct filter_operand operand;
    int code = OMENDB_OK;
    if (parse_skip(parser, PARSE_CLOSE, &code) || code != OMENDB_OK)
        return code;
    do {
        code = parse_value(parser, &operand);
        if (code == OMENDB_OK)
            code = filter_add_operand(parser->builder, &operand);
    } while (parse_skip(parser, PARSE_COMMA, &code));
    if (code == OMENDB_OK && parser->token.kind != PARSE_CLOSE)
        return parse_expected(parser, "',' or ')'");
    return code == OMENDB_OK ? parse_next(parser) : code;
}

/* Behind IN: a list, a parameter, or a field that may be an array. */
static int parse_in(struct filter_parser *parser, const struct filter_side *left, int negate)
{
    struct filter_side right;
    int code = OMENDB_OK;
    if (parse_skip(parser, PARSE_OPEN, &code)) {
        code = filter_add_leaf(parser->builder, left, FILTER_IN, negate);
        return code == OMENDB_OK ? parse_list(parser) : code;
    }
    if (code != OMENDB_OK)
        return code;
    const enum parse_kind kind = parser->token.kind;
    if (kind == PARSE_NUMBERED || kind == PARSE_NAMED) {
        code = parse_side(parser, "", &right);
        return code == OMENDB_OK ? parse_add(parser, left, FILTER_IN, negate, &right.operand)
                                 : code;
    }
    if (kind != PARSE_NAME && kind != PARSE_QUOTED)
        return parse_expected(parser, "'(', a parameter or a field");
    return parse_comparison(parser, left, FILTER_EQUAL, negate);
}

static int parse_between(struct filter_parser *parser, const struct filter_side *left, int negate)
{
    struct filter_operand low, high;
    int code = parse_value(parser, &low);
    if (code == OMENDB_OK && !parse_skip(parser, PARSE_AND, &code) && code == OMENDB_OK)
        code = parse_expected(parser, "AND");
    if (code == OMENDB_OK)
        code = parse_value(parser, &high);
    if (code == OMENDB_OK)
        code = parse_add(parser, left, FILTER_BETWEEN, negate, &low);
    return code == OMENDB_OK ? filter_add_operand(parser->builder, &high) : code;
}

/* The character behind ESCAPE. */
static int parse_escape(struct filter_parser *parser, struct filter_leaf *leaf)
{
    struct filter_operand operand;
    const size_t at = parser->token.at;
    if (parser->token.kind != PARSE_TEXT)
        return parse_expected(parser, "a text of one character");
    int code = parse_value(parser, &operand);
    if (code != OMENDB_OK)
        return code;
    leaf->escape = operand.value.text;
    leaf->escape_size = operand.value.size;
    uint32_t characters = 0;
    for (uint32_t i = 0; i < leaf->escape_size; i++)
        characters += (leaf->escape[i] & 0xC0) != 0x80;
    return characters == 1
               ? OMENDB_OK
               : filter_fail(parser->builder, OMENDB_INVALID, at, "ESCAPE takes one character");
}

static int parse_like(struct filter_parser *parser, const struct filter_side *left, int negate)
{
    const struct filter_builder *builder = parser->builder;
    struct filter_operand pattern;
    int is_whole, code;
    const size_t at = parser->token.at;
    size_t size;
    if (parse_is_value(parser->token.kind) && parser->token.kind != PARSE_TEXT &&
        parser->token.kind != PARSE_NUMBERED && parser->token.kind != PARSE_NAMED &&
        parser->token.kind != PARSE_NULL)
        return parse_expected(parser, "a text");
    code = parse_value(parser, &pattern);
    if (code == OMENDB_OK)
        code = parse_add(parser, left, FILTER_LIKE, negate, &pattern);
    if (code != OMENDB_OK)
        return code;
    struct filter_leaf *leaf = &builder->filter->leaves[builder->filter->leaf_count - 1];
    if (parse_skip(parser, PARSE_ESCAPE, &code))
        code = parse_escape(parser, leaf);
    if (code != OMENDB_OK || pattern.value.type != DOCUMENT_TEXT)
        return code;
    const char *wrong =
        filter_pattern(leaf, pattern.value.text, pattern.value.size, NULL, &size, &is_whole);
    return wrong == NULL ? OMENDB_OK : filter_fail(builder, OMENDB_INVALID, at, "%s", wrong);
}

/* The operators that NOT can stand before; *is_one: this is one of them. */
static int parse_negatable(struct filter_parser *parser, const struct filter_side *left, int negate,
                           int *is_one)
{
    struct filter_operand operand;
    int code = OMENDB_OK;
    *is_one = 1;
    if (parse_skip(parser, PARSE_IN, &code))
        return parse_in(parser, left, negate);
    if (parse_skip(parser, PARSE_BETWEEN, &code))
        return parse_between(parser, left, negate);
    if (parse_skip(parser, PARSE_LIKE, &code))
        return parse_like(parser, left, negate);
    if (parse_skip(parser, PARSE_CONTAINS, &code)) {
        code = parse_value(parser, &operand);
        return code == OMENDB_OK ? parse_add(parser, left, FILTER_EQUAL, negate, &operand) : code;
    }
    *is_one = 0;
    return code;
}

static int parse_is(struct filter_parser *parser, const struct filter_side *left, int negate)
{
    int code = OMENDB_OK;
    if (parse_skip(parser, PARSE_NOT, &code))
        negate = !negate;
    return code == OMENDB_OK ? parse_comparison(parser, left, FILTER_IS, negate) : code;
}

/* negate: NOT stood before it, an odd number of times. */
static int parse_condition(struct filter_parser *parser, int negate)
{
    static const enum filter_operator operators[] = {FILTER_EQUAL,   FILTER_EQUAL,
                                                     FILTER_LESS,    FILTER_LESS_OR_EQUAL,
                                                     FILTER_GREATER, FILTER_GREATER_OR_EQUAL};
    struct filter_side left;
    int is_one = 0;
    int code = parse_side(parser, "a condition", &left);
    const enum parse_kind kind = parser->token.kind;
    if (code != OMENDB_OK)
        return code;
    if (kind >= PARSE_EQUAL && kind <= PARSE_GREATER_OR_EQUAL) {
        code = parse_next(parser);
        return code == OMENDB_OK ? parse_comparison(parser, &left, operators[kind - PARSE_EQUAL],
                                                    negate != (kind == PARSE_UNEQUAL))
                                 : code;
    }
    if (parse_skip(parser, PARSE_IS, &code))
        return parse_is(parser, &left, negate);
    const int is_negated = parse_skip(parser, PARSE_NOT, &code);
    if (code == OMENDB_OK)
        code = parse_negatable(parser, &left, negate != is_negated, &is_one);
    if (code != OMENDB_OK || is_one)
        return code;
    return is_negated ? parse_expected(parser, "IN, BETWEEN, LIKE or CONTAINS")
                      : filter_add_leaf(parser->builder, &left, FILTER_TRUTH, negate);
}

/* ------------------------------------------------------------------ AND, OR, NOT */

/* A parenthesis, or the whole: an OR of ANDs. */
static int parse_open(struct filter_parser *parser, int negate)
{
    struct filter_builder *builder = parser->builder;
    if (builder->depth + 2 > FILTER_GROUPS_MAX)
        return filter_fail(builder, OMENDB_TOOBIG, parser->previous.at,
                           "more than %d parentheses are open", FILTER_DEPTH_MAX);
    int code = filter_open_group(builder, FILTER_OR, negate);
    return code == OMENDB_OK ? filter_open_group(builder, FILTER_AND, 0) : code;
}

/* All NOT and parentheses up to a condition, and it. */
static int parse_one(struct filter_parser *parser)
{
    int code = OMENDB_OK, negate = 0;
    while (code == OMENDB_OK) {
        if (parse_skip(parser, PARSE_NOT, &code)) {
            negate = !negate;
        } else if (parse_skip(parser, PARSE_OPEN, &code)) {
            code = parse_open(parser, negate);
            negate = 0;
        } else if (code == OMENDB_OK) {
            return parse_condition(parser, negate);
        }
    }
    return code;
}

/* What stands behind a condition. *more: another one is next. */
static int parse_joint(struct filter_parser *parser, int *more)
{
    struct filter_builder *builder = parser->builder;
    int code = OMENDB_OK;
    while (builder->depth > 2 && parse_skip(parser, PARSE_CLOSE, &code)) {
        filter_close_group(builder);
        filter_close_group(builder);
    }
    *more = 1;
    if (code != OMENDB_OK || parse_skip(parser, PARSE_AND, &code) || code != OMENDB_OK)
        return code;
    if (parse_skip(parser, PARSE_OR, &code)) {
        filter_close_group(builder);
        return filter_open_group(builder, FILTER_AND, 0);
    }
    *more = 0;
    if (code != OMENDB_OK || (parser->token.kind == PARSE_END && builder->depth == 2))
        return code;
    const omendb_filter *filter = builder->filter;
    const char *end = builder->depth > 2 ? "')'" : "the end";
    if (parser->previous.kind != PARSE_CLOSE &&
        filter->leaves[filter->leaf_count - 1].operator== FILTER_TRUTH)
        return parse_expected_comparison(parser, end);
    return parse_expected(parser, builder->depth > 2 ? "AND, OR or ')'" : "AND, OR or the end");
}

OMENDB_INTERNAL int filter_parse(struct filter_builder *builder)
{
    struct filter_parser parser = {.builder = builder};
    int more = 1;
    int code = parse_next(&parser);
    if (code == OMENDB_OK)
        code = parse_open(&parser, 0);
    while (code == OMENDB_OK && more) {
        code = parse_one(&parser);
        if (code == OMENDB_OK)
            code = parse_joint(&parser, &more);
    }
    if (code != OMENDB_OK)
        return code;
    filter_close_group(builder);
    filter_close_group(builder);
    return OMENDB_OK;
}
