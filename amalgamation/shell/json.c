/* json.c: JSON without a tree. The caller asks for the next token and gets a view of the text, so a
 * vector of any length costs no memory here.
 *
 * Invariant: `state` says which tokens are legal next and `objects` and `depth` which bracket
 * closes, so every sequence of tokens before JSON_ERROR is a prefix of a well-formed text, and
 * JSON_END comes only after a complete one. Nothing recurses; nesting ends at 64 levels.
 *
 * Strings are checked (control characters, escapes, surrogate digits) and left as they are: the
 * shell compares keys and skips the rest, so decoding into memory would serve nobody. Numbers
 * follow the grammar strictly ("01", ".5", "+1", "NaN" are errors) and are converted by strtof,
 * which rounds once; strtod and a cast would round twice.
 *
 * Rejected: a recursive parser (input decides the stack), and accepting more than the grammar,
 * which turns a damaged file into wrong vectors. */
#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define JSON_DEPTH_MAX 64

enum {
    JSON_EXPECTS_VALUE,
    JSON_EXPECTS_VALUE_OR_END,
    JSON_EXPECTS_KEY,
    JSON_EXPECTS_KEY_OR_END,
    JSON_EXPECTS_COMMA_OR_END,
    JSON_EXPECTS_NOTHING,
    JSON_FAILED
};

void json_begin(struct json *json, const char *text, size_t length)
{
    memset(json, 0, sizeof *json);
    json->begin = json->at = text;
    json->end = text + length;
    json->state = JSON_EXPECTS_VALUE;
}

static enum json_token json_fail(struct json *json, const char *error)
{
    if (json->state != JSON_FAILED) {
        json->error = error;
        json->state = JSON_FAILED;
    }
    return JSON_ERROR;
}

static void json_skip_space(struct json *json)
{
    while (json->at < json->end &&
           (*json->at == ' ' || *json->at == '\t' || *json->at == '\n' || *json->at == '\r')) {
        json->at++;
    }
}

static void json_value_done(struct json *json)
{
    json->state = json->depth == 0 ? JSON_EXPECTS_NOTHING : JSON_EXPECTS_COMMA_OR_END;
}

static enum json_token json_open(struct json *json, enum json_token token)
{
    if (json->depth == JSON_DEPTH_MAX) {
        return json_fail(json, "more than 64 levels of brackets");
    }
    json->at++;
    if (token == JSON_OBJECT) {
        json->objects |= UINT64_C(1) << json->depth;
    } else {
        json->objects &= ~(UINT64_C(1) << json->depth);
    }
    json->depth++;
    json->state = token == JSON_OBJECT ? JSON_EXPECTS_KEY_OR_END : JSON_EXPECTS_VALUE_OR_END;
    return token;
}

static int json_in_object(const struct json *json)
{
    return json->depth != 0 && (json->objects >> (json->depth - 1) & 1) != 0;
}

static enum json_token json_close(struct json *json)
{
    const enum json_token token = json_in_object(json) ? JSON_OBJECT_END : JSON_ARRAY_END;

    json->at++;
    json->depth--;
    json_value_done(json);
    return token;
}

static int json_is_hexadecimal(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Bytes of the escape at `at`, which begins with a backslash; 0 when it is none. */
static size_t json_escape_length(const char *at, const char *end)
{
    size_t i;

    if (end - at < 2) {
        return 0;
    }
    if (at[1] != 'u') {
        return at[1] != '\0' && strchr("\"\\/bfnrt", at[1]) != NULL ? 2 : 0;
    }
    for (i = 2; i < 6; i++) {
        if (at + i >= end || !json_is_hexadecimal(at[i])) {
            return 0;
        }
    }
    return 6;
}

static enum json_token json_string(struct json *json, enum json_token token)
{
    const char *at = json->at + 1;

    while (at < json->end && *at != '"') {
        size_t length = *at == '\\' ? json_escape_length(at, json->end) : 1;

        if (length == 0 || (unsigned char)*at < 0x20) {
            return json_fail(json, "a bad escape or a control character in a string");
        }
        at += length;
    }
    if (at >= json->end) {
        return json_fail(json, "a string without its closing quote");
    }
    json->text = json->at + 1;
    json->length = (size_t)(at - json->text);
    json->at = at + 1;
    return token;
}

static const char *json_digits(const char *at, const char *end)
{
    while (at < end && *at >= '0' && *at <= '9') {
        at++;
    }
    return at;
}

/* The end of the number at `at`, or NULL when the grammar does not know it. */
static const char *json_number_end(const char *at, const char *end)
{
    const char *digits;

    at += at < end && *at == '-';
    digits = at;
    at = json_digits(at, end);
    if (at == digits || (*digits == '0' && at - digits > 1)) {
        return NULL;
    }
    if (at < end && *at == '.') {
        digits = ++at;
        at = json_digits(at, end);
        if (at == digits) {
            return NULL;
        }
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        at += at < end && (*at == '+' || *at == '-');
        digits = at;
        at = json_digits(at, end);
        if (at == digits) {
            return NULL;
        }
    }
    return at;
}

static enum json_token json_number(struct json *json)
{
    const char *end = json_number_end(json->at, json->end);

    if (end == NULL || (end < json->end && strchr(",]} \t\r\n", *end) == NULL)) {
        return json_fail(json, "a malformed number");
    }
    json->text = json->at;
    json->length = (size_t)(end - json->at);
    json->at = end;
    json_value_done(json);
    return JSON_NUMBER;
}

static const char json_error_value[] = "neither a value nor a closing bracket";

static enum json_token json_word(struct json *json, const char *word, enum json_token token)
{
    const size_t length = strlen(word);

    if ((size_t)(json->end - json->at) < length || memcmp(json->at, word, length) != 0) {
        return json_fail(json, json_error_value);
    }
    json->at += length;
    json_value_done(json);
    return token;
}

static enum json_token json_value(struct json *json)
{
    switch (*json->at) {
    case '{':
        return json_open(json, JSON_OBJECT);
    case '[':
        return json_open(json, JSON_ARRAY);
    case '"':
        if (json_string(json, JSON_STRING) == JSON_ERROR) {
            return JSON_ERROR;
        }
        json_value_done(json);
        return JSON_STRING;
    case 't':
        return json_word(json, "true", JSON_TRUE);
    case 'f':
        return json_word(json, "false", JSON_FALSE);
    case 'n':
        return json_word(json, "null", JSON_NULL);
    default:
        return *json->at == '-' || (*json->at >= '0' && *json->at <= '9')
                   ? json_number(json)
                   : json_fail(json, json_error_value);
    }
}

static enum json_token json_key(struct json *json)
{
    if (*json->at != '"') {
        return json_fail(json, "a key without quotes");
    }
    if (json_string(json, JSON_KEY) == JSON_ERROR) {
        return JSON_ERROR;
    }
    json_skip_space(json);
    if (json->at >= json->end || *json->at != ':') {
        return json_fail(json, "no colon behind a key");
    }
    json->at++;
    json->state = JSON_EXPECTS_VALUE;
    return JSON_KEY;
}

/* Behind a value inside brackets: consumes a comma and lets json_next go on, or closes. */
static enum json_token json_after_value(struct json *json)
{
    if (*json->at == (json_in_object(json) ? '}' : ']')) {
        return json_close(json);
    }
    if (*json->at != ',') {
        return json_fail(json, "no comma between values");
    }
    json->at++;
    json_skip_space(json);
    if (json->at >= json->end) {
        return json_fail(json, "the text ends early");
    }
    json->state = json_in_object(json) ? JSON_EXPECTS_KEY : JSON_EXPECTS_VALUE;
    return json_in_object(json) ? json_key(json) : json_value(json);
}

enum json_token json_next(struct json *json)
{
    json_skip_space(json);
    if (json->state == JSON_FAILED) {
        return JSON_ERROR;
    }
    if (json->at >= json->end) {
        return json->state == JSON_EXPECTS_NOTHING ? JSON_END
                                                   : json_fail(json, "the text ends early");
    }
    switch (json->state) {
    case JSON_EXPECTS_VALUE:
        return json_value(json);
    case JSON_EXPECTS_VALUE_OR_END:
        return *json->at == ']' ? json_close(json) : json_value(json);
    case JSON_EXPECTS_KEY:
        return json_key(json);
    case JSON_EXPECTS_KEY_OR_END:
        return *json->at == '}' ? json_close(json) : json_key(json);
    case JSON_EXPECTS_COMMA_OR_END:
        return json_after_value(json);
    default:
        return json_fail(json, "text behind the value");
    }
}

int json_skip(struct json *json, enum json_token first)
{
    const unsigned int depth = json->depth;

    if (first != JSON_OBJECT && first != JSON_ARRAY) {
        return first != JSON_ERROR;
    }
    while (json->depth >= depth) {
        if (json_next(json) == JSON_ERROR) {
            return 0;
        }
    }
    return 1;
}

/* The UTF-16 unit that the escape at `*at` stands for, moving past it. */
static uint32_t json_escape(const char **at)
{
    static const char escaped[] = "bfnrt", meant[] = "\b\f\n\r\t";
    const char *c = *at;
    const char *known;
    char digits[5] = {0};

    if (c[1] != 'u') {
        *at += 2;
        known = strchr(escaped, c[1]);
        return (unsigned char)(known != NULL ? meant[known - escaped] : c[1]);
    }
    memcpy(digits, c + 2, 4);
    *at += 6;
    return (uint32_t)strtoul(digits, NULL, 16);
}

/* The ASCII character that the text at `*at` stands for, moving past it; -1 for others. */
static int json_character(const char **at)
{
    const uint32_t code = **at == '\\' ? json_escape(at) : (unsigned char)*(*at)++;

    return code < 0x80 ? (int)code : -1;
}

/* The code point of the escape at `*at`, or of the two that are a surrogate pair. */
static uint32_t json_code_point(const char **at, const char *end)
{
    const uint32_t high = json_escape(at);
    const char *next = *at;
    uint32_t low;

    if (high < 0xD800 || high > 0xDBFF || end - next < 6 || next[0] != '\\' || next[1] != 'u') {
        return high;
    }
    low = json_escape(&next);
    if (low < 0xDC00 || low > 0xDFFF) {
        return high;
    }
    *at = next;
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
}

static char *json_put_utf8(char *out, uint32_t code)
{
    if (code < 0x80) {
        *out++ = (char)code;
        return out;
    }
    if (code < 0x800) {
        *out++ = (char)(0xC0 | code >> 6);
    } else {
        if (code < 0x10000) {
            *out++ = (char)(0xE0 | code >> 12);
        } else {
            *out++ = (char)(0xF0 | code >> 18);
            *out++ = (char)(0x80 | (code >> 12 & 0x3F));
        }
        *out++ = (char)(0x80 | (code >> 6 & 0x3F));
    }
    *out++ = (char)(0x80 | (code & 0x3F));
    return out;
}

size_t json_decode(const struct json *json, char *text)
{
    const char *at = json->text;
    const char *const end = json->text + json->length;
    char *out = text;

    while (at < end) {
        if (*at == '\\') {
            out = json_put_utf8(out, json_code_point(&at, end));
        } else {
            *out++ = *at++;
        }
    }
    *out = '\0';
    return (size_t)(out - text);
}

int json_equals(const struct json *json, const char *text)
{
    const char *at = json->text;
    const char *end = json->text + json->length;

    while (at < end && *text != '\0') {
        if (json_character(&at) != *text) {
            return 0;
        }
        text++;
    }
    return at == end && *text == '\0';
}

int json_float(const struct json *json, float *value)
{
    *value = strtof(json->text, NULL);
    return isfinite(*value) != 0;
}

int json_parse_whole(const char *text, size_t length, uint64_t *value)
{
    uint64_t whole = 0;
    size_t i;

    for (i = 0; i < length; i++) {
        uint64_t digit = (uint64_t)(unsigned char)text[i] - '0';

        if (digit > 9 || whole > (UINT64_MAX - digit) / 10) {
            return 0;
        }
        whole = 10 * whole + digit;
    }
    *value = whole;
    return length != 0;
}

int json_whole(const struct json *json, uint64_t *value)
{
    return json_parse_whole(json->text, json->length, value);
}

#undef JSON_DEPTH_MAX
