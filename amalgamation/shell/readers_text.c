/* readers_text.c: vectors as text, one to a line.
 *
 * - csv: id, then the elements; separated by the first of comma, semicolon and tab that the file
 *   has. A first line whose first field is "id" has the names of columns.
 * - jsonl: {"id": 7, "vector": [0.5, ...], "key": "a", "metadata": {...}}, other keys are skipped;
 *   all but "vector" may be left out; or an array of the elements.
 *
 * Invariant: the first row is read by begin(), because only it tells the dimension and whether
 * there are ids; every later row must be like it. Empty lines are skipped.
 *
 * A line may have 16 MiB, which 65,535 elements never reach; longer ones are refused before they
 * take memory. A byte order mark and carriage returns are accepted. */
#define _POSIX_C_SOURCE   200809L
#define _FILE_OFFSET_BITS 64

#include "readers.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define READER_LINE_MAX (16u << 20)

/* Room for one more character in the line. */
static int reader_grow_line(struct reader *reader)
{
    const size_t capacity = reader->line_capacity == 0 ? 4096 : 2 * reader->line_capacity;
    char *line;

    if (reader->line_length + 1 < reader->line_capacity) {
        return OMENDB_OK;
    }
    if (capacity > READER_LINE_MAX) {
        return reader_fail(reader, OMENDB_TOOBIG,
                           "longer than 16 MiB; one vector a line is expected");
    }
    line = failure_resize(reader->failure, reader->line, capacity, 1);
    if (line == NULL) {
        return OMENDB_NOMEM;
    }
    reader->line = line;
    reader->line_capacity = capacity;
    return OMENDB_OK;
}

/* Reads a line without its end; OMENDB_DONE at the end of the file. */
static int reader_line(struct reader *reader)
{
    int c = 0;

    reader->line_length = 0;
    reader->line_number++;
    for (;;) {
        int code = reader_grow_line(reader);

        if (code != OMENDB_OK) {
            return code;
        }
        c = getc_unlocked(reader->file);
        if (c == EOF || c == '\n') {
            break;
        }
        reader->line[reader->line_length++] = (char)c;
    }
    reader->read_bytes += reader->line_length + (c == '\n');
    if (c == EOF && ferror(reader->file)) {
        return reader_fail(reader, OMENDB_IOERR, "cannot be read: %s", strerror(errno));
    }
    if (reader->line_length > 0 && reader->line[reader->line_length - 1] == '\r') {
        reader->line_length--;
    }
    reader->line[reader->line_length] = '\0';
    return c == EOF && reader->line_length == 0 ? OMENDB_DONE : OMENDB_OK;
}

/* The next line that is not blank. */
static int reader_filled_line(struct reader *reader)
{
    int code;

    do {
        code = reader_line(reader);
        if (code == OMENDB_OK && reader->line_number == 1 && reader->line_length >= 3 &&
            memcmp(reader->line, "\xef\xbb\xbf", 3) == 0) {
            reader->line_length -= 3;
            memmove(reader->line, reader->line + 3, reader->line_length + 1);
        }
    } while (code == OMENDB_OK && strspn(reader->line, " \t") == reader->line_length);
    if (code == OMENDB_OK && strlen(reader->line) != reader->line_length) {
        return reader_fail(reader, OMENDB_INVALID, "a NUL byte; is it a text file?");
    }
    return code;
}

static int reader_add_value(struct reader *reader, size_t count, float value)
{
    if (count == READER_DIM_MAX) {
        return reader_fail(reader, OMENDB_TOOBIG, "more than %u elements", READER_DIM_MAX);
    }
    if (count == reader->value_capacity) {
        const size_t capacity = count == 0 ? 256 : 2 * count;
        float *values = failure_resize(reader->failure, reader->values, capacity, sizeof *values);

        if (values == NULL) {
            return OMENDB_NOMEM;
        }
        reader->values = values;
        reader->value_capacity = capacity;
    }
    reader->values[count] = value;
    return OMENDB_OK;
}

/* Compares the elements of a row with those before; the first row sets the dimension. */
static int reader_check_count(struct reader *reader, size_t count)
{
    if (count == 0) {
        return reader_fail(reader, OMENDB_INVALID, "a vector without elements");
    }
    if (reader->dim == 0) {
        reader->dim = (uint32_t)count;
    }
    if (count != reader->dim) {
        return reader_fail(reader, OMENDB_INVALID, "%zu elements, the lines before have %lu", count,
                           (unsigned long)reader->dim);
    }
    return OMENDB_OK;
}

/* Room for `size` more bytes in the texts of rows. */
static int reader_grow_texts(struct reader *reader, size_t size)
{
    const size_t needed = reader->text_bytes + size;
    const size_t capacity = needed < 4096 ? 4096 : 2 * needed;
    char *texts;

    if (needed <= reader->text_capacity) {
        return OMENDB_OK;
    }
    texts = failure_resize(reader->failure, reader->texts, capacity, 1);
    if (texts == NULL) {
        return OMENDB_NOMEM;
    }
    reader->texts = texts;
    reader->text_capacity = capacity;
    return OMENDB_OK;
}

/* Hands out the row that begin() has read, or parses the next line with `parse`. */
static int reader_text_row(struct reader *reader, uint64_t *id, void *vector,
                           int (*parse)(struct reader *, uint64_t *))
{
    int code = OMENDB_OK;

    if (reader->pending) {
        *id = reader->pending_id;
        reader->pending = false;
    } else {
        code = reader->dim == 0 ? OMENDB_DONE : reader_filled_line(reader);
        code = code == OMENDB_OK ? parse(reader, id) : code;
    }
    if (code == OMENDB_OK) {
        memcpy(vector, reader->values, reader->dim * sizeof *reader->values);
    }
    return code;
}

static int reader_text_begin(struct reader *reader, int (*parse)(struct reader *, uint64_t *))
{
    int code = parse(reader, &reader->pending_id);

    reader->scalar = OMENDB_F32;
    reader->pending = code == OMENDB_OK;
    return code;
}

/* csv */

/* The field at `at`: without spaces and quotes around it. Returns where the next one begins, or
 * NULL behind the last. */
static const char *reader_csv_field(const struct reader *reader, const char *at, const char **text,
                                    size_t *length)
{
    const char separators[2] = {reader->delimiter, '\0'};
    const char *end = at + strcspn(at, separators);
    const char *next = *end != '\0' ? end + 1 : NULL;

    while (at < end && (*at == ' ' || *at == '\t')) {
        at++;
    }
    while (end > at && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    if (end - at >= 2 && *at == '"' && end[-1] == '"') {
        at++;
        end--;
    }
    *text = at;
    *length = (size_t)(end - at);
    return next;
}

/* The characters of decimal numbers only: strtof would also take "nan", "inf" and "0x1p3". */
static bool reader_csv_number(const char *text, size_t length, float *value)
{
    char *end = NULL;

    if (length == 0 || strspn(text, "+-.0123456789eE") < length) {
        return false;
    }
    *value = strtof(text, &end);
    return end == text + length;
}

static int reader_csv_parse(struct reader *reader, uint64_t *id)
{
    const char *text;
    size_t length, count = 0;
    const char *next = reader_csv_field(reader, reader->line, &text, &length);
    int code = OMENDB_OK;

    if (!json_parse_whole(text, length, id) || *id == OMENDB_ID_AUTO) {
        return reader_fail(reader, OMENDB_INVALID,
                           "column 1: '%.*s' is no id; the first column holds whole numbers from "
                           "0 to 18446744073709551614%s",
                           (int)(length < 40 ? length : 40), text,
                           reader->dim == 0 ? ", and a line of column names begins with id" : "");
    }
    while (next != NULL && code == OMENDB_OK) {
        float value = 0;

        next = reader_csv_field(reader, next, &text, &length);
        if (!reader_csv_number(text, length, &value) || !isfinite(value)) {
            return reader_fail(reader, OMENDB_INVALID, "column %zu: '%.*s' is no finite number",
                               count + 2, (int)(length < 40 ? length : 40), text);
        }
        code = reader_add_value(reader, count, value);
        count++;
    }
    return code == OMENDB_OK ? reader_check_count(reader, count) : code;
}

/* A line of names begins with "id". Taking any text for a name would drop a row whose id is wrong
 * without a word. */
static bool reader_csv_is_header(const struct reader *reader)
{
    const char *text;
    size_t length;

    reader_csv_field(reader, reader->line, &text, &length);
    return length == 2 && (text[0] | 0x20) == 'i' && (text[1] | 0x20) == 'd';
}

static int reader_csv_begin(struct reader *reader)
{
    int code = reader_filled_line(reader);

    if (code == OMENDB_OK) {
        reader->delimiter = reader->line[strcspn(reader->line, ",;\t")];
        if (reader->delimiter == '\0') {
            return reader_fail(reader, OMENDB_INVALID,
                               "only one column; id and elements separated by commas are expected");
        }
        code = reader_csv_is_header(reader) ? reader_filled_line(reader) : code;
    }
    reader->has_ids = true;
    if (code == OMENDB_DONE) {
        reader->line_number = 0;
        return reader_fail(reader, OMENDB_INVALID, "has no rows");
    }
    return code == OMENDB_OK ? reader_text_begin(reader, reader_csv_parse) : code;
}

static int reader_csv_row(struct reader *reader, uint64_t *id, void *vector)
{
    return reader_text_row(reader, id, vector, reader_csv_parse);
}

/* jsonl */

static int reader_json_fail(struct reader *reader, const struct json *json)
{
    return reader_fail(reader, OMENDB_INVALID, "column %llu: %s",
                       (unsigned long long)(json->at - json->begin) + 1, json->error);
}

/* The elements behind the '[' of a vector. */
static int reader_jsonl_vector(struct reader *reader, struct json *json, size_t *count)
{
    enum json_token token = json_next(json);
    int code = OMENDB_OK;

    for (*count = 0; code == OMENDB_OK && token == JSON_NUMBER; (*count)++) {
        float value;

        if (!json_float(json, &value)) {
            return reader_fail(reader, OMENDB_INVALID,
                               "element %zu: '%.*s' does not fit a 32-bit float", *count,
                               (int)(json->length < 40 ? json->length : 40), json->text);
        }
        code = reader_add_value(reader, *count, value);
        token = json_next(json);
    }
    if (code != OMENDB_OK || token == JSON_ARRAY_END) {
        return code;
    }
    return token == JSON_ERROR ? reader_json_fail(reader, json)
                               : reader_fail(reader, OMENDB_INVALID,
                                             "element %zu of the vector is no number", *count);
}

enum {
    READER_JSONL_ID,
    READER_JSONL_VECTOR,
    READER_JSONL_KEY,
    READER_JSONL_METADATA,
    READER_JSONL_OTHER
};

static const char *const reader_jsonl_names[] = {"id", "vector", "key", "metadata"};

struct reader_jsonl_row {
    bool seen[READER_JSONL_OTHER];
    uint64_t id;
    size_t count;
};

/* The value of "key": a text, or null. */
static int reader_jsonl_key(struct reader *reader, const struct json *json, enum json_token token)
{
    int code = OMENDB_OK;
    size_t size;

    if (token == JSON_NULL) {
        return OMENDB_OK;
    }
    if (token != JSON_STRING) {
        return reader_fail(reader, OMENDB_INVALID, "\"key\" is no text");
    }
    code = reader_grow_texts(reader, json->length + 1);
    if (code != OMENDB_OK) {
        return code;
    }
    size = json_decode(json, reader->texts + reader->text_bytes);
    if (strlen(reader->texts + reader->text_bytes) != size) {
        return reader_fail(reader, OMENDB_INVALID, "\"key\" has a NUL in it");
    }
    reader->row_texts.key = reader->text_bytes;
    reader->text_bytes += size + 1;
    return OMENDB_OK;
}

/* The value of "metadata": an object, as it stands, or null. */
static int reader_jsonl_metadata(struct reader *reader, struct json *json, enum json_token token)
{
    const char *const begin = json->at - 1;
    size_t size;
    int code;

    if (token == JSON_NULL) {
        return OMENDB_OK;
    }
    if (token != JSON_OBJECT) {
        return reader_fail(reader, OMENDB_INVALID, "\"metadata\" is no object");
    }
    if (!json_skip(json, token)) {
        return reader_json_fail(reader, json);
    }
    size = (size_t)(json->at - begin);
    code = reader_grow_texts(reader, size + 1);
    if (code == OMENDB_OK) {
        memcpy(reader->texts + reader->text_bytes, begin, size);
        reader->texts[reader->text_bytes + size] = '\0';
        reader->row_texts.metadata = reader->text_bytes;
        reader->text_bytes += size + 1;
    }
    return code;
}

/* Which name the last JSON_KEY is. */
static unsigned int reader_jsonl_name(const struct json *json)
{
    unsigned int name = 0;

    while (name < READER_JSONL_OTHER && !json_equals(json, reader_jsonl_names[name])) {
        name++;
    }
    return name;
}

static int reader_jsonl_pair(struct reader *reader, struct json *json, struct reader_jsonl_row *row)
{
    const unsigned int name = reader_jsonl_name(json);
    const enum json_token token = json_next(json);

    if (token == JSON_ERROR || name == READER_JSONL_OTHER) {
        return json_skip(json, token) ? OMENDB_OK : reader_json_fail(reader, json);
    }
    if (row->seen[name]) {
        return reader_fail(reader, OMENDB_INVALID, "the key \"%s\" twice",
                           reader_jsonl_names[name]);
    }
    row->seen[name] = true;
    switch (name) {
    case READER_JSONL_ID:
        return token == JSON_NUMBER && json_whole(json, &row->id) && row->id != OMENDB_ID_AUTO
                   ? OMENDB_OK
                   : reader_fail(reader, OMENDB_INVALID,
                                 "\"id\" is no whole number from 0 to 18446744073709551614");
    case READER_JSONL_VECTOR:
        return token == JSON_ARRAY
                   ? reader_jsonl_vector(reader, json, &row->count)
                   : reader_fail(reader, OMENDB_INVALID, "\"vector\" is no array of numbers");
    case READER_JSONL_KEY:
        return reader_jsonl_key(reader, json, token);
    default:
        return reader_jsonl_metadata(reader, json, token);
    }
}

/* The object or array of a line, without what must not follow it. */
static int reader_jsonl_value(struct reader *reader, struct json *json,
                              struct reader_jsonl_row *row)
{
    enum json_token token = json_next(json);
    int code = OMENDB_OK;

    if (token == JSON_ARRAY) {
        row->seen[READER_JSONL_VECTOR] = true;
        return reader_jsonl_vector(reader, json, &row->count);
    }
    if (token != JSON_OBJECT) {
        return token == JSON_ERROR ? reader_json_fail(reader, json)
                                   : reader_fail(reader, OMENDB_INVALID,
                                                 "neither an object nor an array; expected is "
                                                 "{\"id\": 1, \"vector\": [0.5, 0.25]}");
    }
    while (code == OMENDB_OK && (token = json_next(json)) == JSON_KEY) {
        code = reader_jsonl_pair(reader, json, row);
    }
    return code == OMENDB_OK && token == JSON_ERROR ? reader_json_fail(reader, json) : code;
}

static int reader_jsonl_parse(struct reader *reader, uint64_t *id)
{
    struct reader_jsonl_row row = {0};
    struct json json;
    int code;

    reader->row_texts = (struct reader_texts){READER_NO_TEXT, READER_NO_TEXT};
    json_begin(&json, reader->line, reader->line_length);
    code = reader_jsonl_value(reader, &json, &row);
    if (code == OMENDB_OK && json_next(&json) != JSON_END) {
        code = reader_json_fail(reader, &json);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    if (!row.seen[READER_JSONL_VECTOR]) {
        return reader_fail(reader, OMENDB_INVALID, "no key \"vector\"");
    }
    if (reader->dim == 0) {
        reader->has_ids = row.seen[READER_JSONL_ID];
    }
    if (row.seen[READER_JSONL_ID] != reader->has_ids) {
        return reader_fail(reader, OMENDB_INVALID,
                           reader->has_ids ? "has no \"id\", the lines before have one"
                                           : "has an \"id\", the lines before have none");
    }
    *id = row.id;
    return reader_check_count(reader, row.count);
}

static int reader_jsonl_begin(struct reader *reader)
{
    const int code = reader_filled_line(reader);

    if (code == OMENDB_DONE) {
        reader->line_number = 0;
        return reader_fail(reader, OMENDB_INVALID, "has no rows");
    }
    return code == OMENDB_OK ? reader_text_begin(reader, reader_jsonl_parse) : code;
}

static int reader_jsonl_row(struct reader *reader, uint64_t *id, void *vector)
{
    return reader_text_row(reader, id, vector, reader_jsonl_parse);
}

const struct reader_format reader_csv = {"csv", true, reader_csv_begin, reader_csv_row};
const struct reader_format reader_jsonl = {"jsonl", true, reader_jsonl_begin, reader_jsonl_row};

#undef READER_LINE_MAX
