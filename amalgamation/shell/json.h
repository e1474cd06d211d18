/* json.h: a pull tokenizer for JSON text in memory (RFC 8259). */
#ifndef OMENDB_SHELL_JSON_H
#define OMENDB_SHELL_JSON_H

#include <stddef.h>
#include <stdint.h>

enum json_token {
    JSON_ERROR, /* json.error says why; every later call gives it again */
    JSON_END,   /* the text is complete and nothing follows it */
    JSON_OBJECT,
    JSON_OBJECT_END,
    JSON_ARRAY,
    JSON_ARRAY_END,
    JSON_KEY,    /* json.text, json.length: between the quotes, escapes as they stand */
    JSON_STRING, /* likewise */
    JSON_NUMBER, /* json.text, json.length: digits as they stand */
    JSON_TRUE,
    JSON_FALSE,
    JSON_NULL
};

struct json {
    const char *begin;
    const char *at;
    const char *end;
    const char *text;
    size_t length;
    const char *error;
    uint64_t objects; /* bit n: the value open at depth n is an object */
    unsigned int depth;
    int state;
};

/* Begins at the first token.
 *
 * text: `length` bytes and a NUL behind them, which stay while `json` is used. */
void json_begin(struct json *json, const char *text, size_t length);

enum json_token json_next(struct json *json);

/* Moves past the rest of the value whose first token was `first`: nothing for a scalar. Returns 0
 * and sets json->error when the text is damaged. */
int json_skip(struct json *json, enum json_token first);

/* Whether the last JSON_KEY or JSON_STRING means `text`, of ASCII. */
int json_equals(const struct json *json, const char *text);

/* Writes what the last JSON_KEY or JSON_STRING means, with a NUL, to `text`, which has room for
 * json->length + 1 bytes; returns the bytes without the NUL. A half of a surrogate pair becomes
 * what is no UTF-8. */
size_t json_decode(const struct json *json, char *text);

/* The last JSON_NUMBER. Each returns 0 when it does not fit: a float that is not finite, a whole
 * number with fraction, exponent, sign or more than 64 bits. */
int json_float(const struct json *json, float *value);
int json_whole(const struct json *json, uint64_t *value);

/* A whole number of decimal digits and nothing else. */
int json_parse_whole(const char *text, size_t length, uint64_t *value);

#endif
