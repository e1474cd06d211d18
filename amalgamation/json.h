/* json.h: JSON (RFC 8259) as a stream of tokens, in and out, without memory and without recursion:
 * who reads decides what may come next, and how deep. Strict: no byte that the RFC does not allow,
 * and texts are valid UTF-8, so that a lone surrogate, which JSON can write but UTF-8 cannot, is
 * refused.
 *
 * A function that reads sets the error: OMENDB_INVALID with the byte and what was expected there,
 * "metadata: byte 17: expected ':' after the name of a field, not '}'". */
#ifndef OMENDB_JSON_H
#define OMENDB_JSON_H

#include "internal.h"

struct json_reader {
    const char *about; /* begins the error: what the text is */
    const uint8_t *text;
    size_t size;
    size_t at; /* of the byte that comes next */
};

struct json_number {
    int is_integer; /* written without point and exponent, and fits */
    int64_t integer;
    double real; /* else: the nearest double, finite */
};

OMENDB_INTERNAL void json_begin(struct json_reader *reader, const char *about, const void *text,
                                size_t size);

/* Goes over white space. Returns the byte after it, which stays, or -1: there is none. */
OMENDB_INTERNAL int json_next(struct json_reader *reader);

/* The error that at byte `at` there is not what was expected. */
OMENDB_INTERNAL int json_expected(const struct json_reader *reader, size_t at, const char *what);

/* Takes this byte, after white space; what: for the error. */
OMENDB_INTERNAL int json_take(struct json_reader *reader, char byte, const char *what);
/* Takes "true", "false", "null", which begins here. */
OMENDB_INTERNAL int json_take_word(struct json_reader *reader, const char *word);
/* Nothing but white space is left. */
OMENDB_INTERNAL int json_take_end(struct json_reader *reader);

/* Takes the number that begins here. -0 is the integer 0. What is too large for a double is
 * refused; what is too small is 0.0. */
OMENDB_INTERNAL int json_take_number(struct json_reader *reader, struct json_number *number);

/* Takes the text whose quote stands here; *size bytes of it, of at most `capacity`, go to `out`.
 * They are never more than those that it is written with. OMENDB_TOOBIG: they did not fit. */
OMENDB_INTERNAL int json_take_text(struct json_reader *reader, uint8_t *out, size_t capacity,
                                   size_t *size);

/* How many of so many bytes are valid UTF-8, from the first on. */
OMENDB_INTERNAL size_t json_utf8_bytes(const uint8_t *text, size_t size);

/* What is written goes to `out` as far as `capacity` goes, and is counted in any case. */
struct json_writer {
    char *out;
    size_t capacity;
    size_t size;
};

OMENDB_INTERNAL void json_write(struct json_writer *writer, const void *bytes, size_t size);
OMENDB_INTERNAL void json_write_integer(struct json_writer *writer, int64_t integer);
/* Finite. It reads back as a real of the same value. */
OMENDB_INTERNAL void json_write_real(struct json_writer *writer, double real);
/* With its quotes; what must be escaped is, nothing else. The text is valid UTF-8. */
OMENDB_INTERNAL void json_write_text(struct json_writer *writer, const uint8_t *text, size_t size);
/* Puts a NUL behind it, or where `capacity` ends; not counted. */
OMENDB_INTERNAL void json_write_end(struct json_writer *writer);

#endif
