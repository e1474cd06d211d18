/* output.c: JSON, tables, and numbers as text.
 *
 * Invariant: what goes out with --json is valid JSON and valid UTF-8 whatever the names of files
 * and collections are: control characters are escaped, bytes that are no UTF-8 become U+FFFD, and
 * floats that JSON cannot write (they are not stored, but may come as a distance that overflows)
 * become null.
 *
 * Floats are printed with the fewest digits that read back as the same float, so an export is exact
 * and 0.1 stays 0.1. Whole numbers of 64 bits are written as they are; a JavaScript reader rounds
 * those above 2^53, which is its business.
 *
 * A table keeps its cells until it is printed, since the widths are known last. */
#include "output.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* JSON */

/* Bytes of the well-formed UTF-8 character at `text`, 0 when it is none. */
static size_t output_utf8_length(const unsigned char *text)
{
    size_t length = text[0] < 0x80   ? 1
                    : text[0] < 0xc2 ? 0
                    : text[0] < 0xe0 ? 2
                    : text[0] < 0xf0 ? 3
                    : text[0] < 0xf5 ? 4
                                     : 0;
    size_t i;

    for (i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f) ||
        (text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f)) {
        return 0;
    }
    return length;
}

static void output_string(FILE *file, const char *text, size_t size)
{
    const unsigned char *at = (const unsigned char *)text;
    const unsigned char *const end = at + size;

    putc('"', file);
    while (at < end) {
        const size_t length = output_utf8_length(at);

        if (length == 0) {
            fputs("\\ufffd", file);
        } else if (*at < 0x20 || *at == 0x7f) {
            fprintf(file, "\\u%04x", *at);
        } else {
            if (*at == '"' || *at == '\\') {
                putc('\\', file);
            }
            fwrite(at, 1, length, file);
        }
        at += length != 0 ? length : 1;
    }
    putc('"', file);
}

static void output_begin_value(struct output_json *json, const char *key)
{
    if (json->filled[json->depth]) {
        fputs(", ", json->file);
    }
    json->filled[json->depth] = json->depth != 0;
    if (key != NULL) {
        output_string(json->file, key, strlen(key));
        fputs(": ", json->file);
    }
}

void output_open(struct output_json *json, const char *key, char bracket)
{
    output_begin_value(json, key);
    putc(bracket, json->file);
    json->depth++;
    json->filled[json->depth] = false;
}

void output_close(struct output_json *json, char bracket)
{
    putc(bracket, json->file);
    json->depth--;
    if (json->depth == 0) {
        putc('\n', json->file);
    }
}

void output_text(struct output_json *json, const char *key, const char *text)
{
    output_bytes(json, key, text, strlen(text));
}

void output_bytes(struct output_json *json, const char *key, const char *text, size_t size)
{
    output_begin_value(json, key);
    output_string(json->file, text, size);
}

void output_json_text(struct output_json *json, const char *key, const char *value)
{
    output_begin_value(json, key);
    fputs(value, json->file);
}

void output_whole(struct output_json *json, const char *key, uint64_t value)
{
    output_begin_value(json, key);
    fprintf(json->file, "%llu", (unsigned long long)value);
}

void output_float(struct output_json *json, const char *key, float value)
{
    char text[OUTPUT_FLOAT_BYTES];

    output_begin_value(json, key);
    fputs(isfinite(value) ? output_format_float(value, text) : "null", json->file);
}

void output_boolean(struct output_json *json, const char *key, bool value)
{
    output_begin_value(json, key);
    fputs(value ? "true" : "false", json->file);
}

void output_vector(struct output_json *json, const char *key, const float *vector, size_t dim)
{
    size_t i;

    output_open(json, key, '[');
    for (i = 0; i < dim; i++) {
        output_float(json, NULL, vector[i]);
    }
    output_close(json, ']');
}

/* numbers */

const char *output_format_float(float value, char text[OUTPUT_FLOAT_BYTES])
{
    int digits;

    for (digits = 6; digits < 9; digits++) {
        snprintf(text, OUTPUT_FLOAT_BYTES, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value) {
            return text;
        }
    }
    snprintf(text, OUTPUT_FLOAT_BYTES, "%.9g", (double)value);
    return text;
}

const char *output_format_count(uint64_t value, char text[OUTPUT_TEXT_BYTES])
{
    char digits[OUTPUT_TEXT_BYTES];
    const int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
    char *out = text;
    int i;

    for (i = 0; i < length; i++) {
        if (i != 0 && (length - i) % 3 == 0) {
            *out++ = ',';
        }
        *out++ = digits[i];
    }
    *out = '\0';
    return text;
}

const char *output_format_bytes(uint64_t value, char text[OUTPUT_TEXT_BYTES])
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double scaled = (double)value;
    size_t unit = 0;

    while (scaled >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        scaled /= 1024;
        unit++;
    }
    snprintf(text, OUTPUT_TEXT_BYTES, unit == 0 || scaled >= 100 ? "%.0f %s" : "%.1f %s", scaled,
             units[unit]);
    return text;
}

const char *output_format_time(uint64_t us, char text[OUTPUT_TEXT_BYTES])
{
    if (us < 1000000) {
        snprintf(text, OUTPUT_TEXT_BYTES, us < 10000 ? "%.2f ms" : "%.0f ms", (double)us / 1e3);
    } else {
        snprintf(text, OUTPUT_TEXT_BYTES, us < 100000000 ? "%.1f s" : "%.0f s", (double)us / 1e6);
    }
    return text;
}

const char *output_format_clock(double seconds, char text[OUTPUT_TEXT_BYTES])
{
    const unsigned long whole =
        seconds >= 0 && seconds < 360000000 ? (unsigned long)(seconds + 0.5) : 0;

    if (whole >= 3600) {
        snprintf(text, OUTPUT_TEXT_BYTES, "%lu:%02lu:%02lu", whole / 3600, whole / 60 % 60,
                 whole % 60);
    } else {
        snprintf(text, OUTPUT_TEXT_BYTES, "%lu:%02lu", whole / 60, whole % 60);
    }
    return text;
}

/* tables */

size_t output_width(const char *text)
{
    size_t width = 0;

    for (; *text != '\0'; text++) {
        width += ((unsigned char)*text & 0xc0) != 0x80;
    }
    return width;
}

void output_table_begin(struct output_table *table, const char *titles, struct failure *failure)
{
    memset(table, 0, sizeof *table);
    table->titles = titles;
    table->failure = failure;
    table->columns = 1;
    for (; *titles != '\0'; titles++) {
        table->columns += *titles == '|';
    }
}

void output_table_cell(struct output_table *table, const char *text)
{
    const size_t bytes = strlen(text) + 1;

    if (bytes > table->capacity - table->length) {
        const size_t capacity = 2 * table->capacity + bytes + 256;
        char *cells = failure_resize(table->failure, table->cells, capacity, 1);

        if (cells == NULL) {
            return;
        }
        table->cells = cells;
        table->capacity = capacity;
    }
    memcpy(table->cells + table->length, text, bytes);
    table->length += bytes;
    table->cell_count++;
}

/* Copies title number `column` without its mark; returns whether it is flush right. */
static bool output_table_title(const struct output_table *table, unsigned int column, char *title,
                               size_t capacity)
{
    const char *at = table->titles;
    bool right;
    size_t length;

    for (; column > 0; column--) {
        at = strchr(at, '|') + 1;
    }
    right = *at == '>';
    at += right;
    length = strcspn(at, "|");
    length = length < capacity ? length : capacity - 1;
    memcpy(title, at, length);
    title[length] = '\0';
    return right;
}

static void output_table_pad(FILE *file, const char *text, size_t width, bool right, bool last)
{
    const size_t used = output_width(text);
    const int padding = used < width ? (int)(width - used) : 0;

    if (right) {
        fprintf(file, "%*s%s", padding, "", text);
    } else {
        fprintf(file, "%s%*s", text, last ? 0 : padding, "");
    }
    fputs(last ? "\n" : "  ", file);
}

void output_table_print(struct output_table *table, FILE *file)
{
    size_t widths[OUTPUT_COLUMNS_MAX] = {0};
    bool right[OUTPUT_COLUMNS_MAX];
    char title[64];
    const char *cell = table->cells;
    unsigned int column;
    size_t i;

    for (column = 0; column < table->columns; column++) {
        right[column] = output_table_title(table, column, title, sizeof title);
        widths[column] = output_width(title);
    }
    for (i = 0; i < table->cell_count; i++, cell += strlen(cell) + 1) {
        const size_t width = output_width(cell);

        column = (unsigned int)(i % table->columns);
        widths[column] = width > widths[column] ? width : widths[column];
    }
    for (column = 0; column < table->columns; column++) {
        output_table_title(table, column, title, sizeof title);
        output_table_pad(file, title, widths[column], right[column], column + 1 == table->columns);
    }
    cell = table->cells;
    for (i = 0; i < table->cell_count; i++, cell += strlen(cell) + 1) {
        column = (unsigned int)(i % table->columns);
        output_table_pad(file, cell, widths[column], right[column], column + 1 == table->columns);
    }
    failure_release(table->cells);
    memset(table, 0, sizeof *table);
}
