/* output.h: what the shell prints: tables for people, JSON for scripts. */
#ifndef OMENDB_SHELL_OUTPUT_H
#define OMENDB_SHELL_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "failure.h"

/* JSON, written as it comes. */
struct output_json {
    FILE *file;
    unsigned int depth;
    bool filled[16]; /* something stands at that depth already */
};

/* `key` is NULL inside an array and at the top. Behind the `size` bytes of a text stands a NUL. */
void output_open(struct output_json *json, const char *key, char bracket);
void output_close(struct output_json *json, char bracket); /* a line end behind the outermost */
void output_text(struct output_json *json, const char *key, const char *text);
void output_bytes(struct output_json *json, const char *key, const char *text, size_t size);
void output_json_text(struct output_json *json, const char *key, const char *value); /* as it is */
void output_whole(struct output_json *json, const char *key, uint64_t value);
void output_float(struct output_json *json, const char *key, float value);
void output_boolean(struct output_json *json, const char *key, bool value);
void output_vector(struct output_json *json, const char *key, const float *vector, size_t dim);

/* The shortest decimal text that reads back as the same float, at most 16 bytes with the NUL. */
#define OUTPUT_FLOAT_BYTES 24
const char *output_format_float(float value, char text[OUTPUT_FLOAT_BYTES]);

/* "1,234,567", "12.3 MiB", "0.35 ms", "1:02:03"; `text` is returned. */
#define OUTPUT_TEXT_BYTES 32
const char *output_format_count(uint64_t value, char text[OUTPUT_TEXT_BYTES]);
const char *output_format_bytes(uint64_t value, char text[OUTPUT_TEXT_BYTES]);
const char *output_format_time(uint64_t us, char text[OUTPUT_TEXT_BYTES]);
const char *output_format_clock(double seconds, char text[OUTPUT_TEXT_BYTES]);

/* A table: a line of titles, then cells row by row. Columns that hold numbers are set flush right.
 */
#define OUTPUT_COLUMNS_MAX 12

struct output_table {
    struct failure *failure;
    const char *titles; /* separated by '|'; a title that begins with '>' is flush right */
    unsigned int columns;
    char *cells; /* NUL-terminated texts, one behind the other */
    size_t length, capacity;
    size_t cell_count;
};

/* A cell that finds no memory sets the failure and is left out. */
void output_table_begin(struct output_table *table, const char *titles, struct failure *failure);
void output_table_cell(struct output_table *table, const char *text);
void output_table_print(struct output_table *table, FILE *file); /* and frees it */

/* Columns on the screen of `text`: its UTF-8 characters. */
size_t output_width(const char *text);

#endif
