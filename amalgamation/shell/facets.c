/* facets.c: how many records have each value of a field.
 *
 * Invariant: all is counted when the library has opened them, so nothing fails while they are
 * printed. */
#include "commands.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FACETS_BAR_COLUMNS 30u
#define FACETS_TEXT_BYTES  64u /* of a value in the table; longer ones are cut */

struct facets {
    omendb_facets *handle;
    uint64_t records, nulls, values;
};

/* A number or a boolean as in JSON, with the fewest digits that read back as the same. */
static const char *facets_format(const omendb_facet *facet, char text[OUTPUT_TEXT_BYTES])
{
    int digits;

    if (facet->type == OMENDB_VALUE_BOOL) {
        return facet->i64 != 0 ? "true" : "false";
    }
    if (facet->type == OMENDB_VALUE_I64) {
        snprintf(text, OUTPUT_TEXT_BYTES, "%lld", (long long)facet->i64);
        return text;
    }
    for (digits = 6; digits <= 17; digits++) {
        snprintf(text, OUTPUT_TEXT_BYTES, "%.*g", digits, facet->f64);
        if (!(strtod(text, NULL) < facet->f64) && !(strtod(text, NULL) > facet->f64)) {
            break;
        }
    }
    return text;
}

static void facets_print_json(struct session *session, const struct facets *facets)
{
    struct output_json *json = &session->json;
    omendb_facet facet = OMENDB_FACET_INIT;
    char text[OUTPUT_TEXT_BYTES];

    output_open(json, NULL, '{');
    output_text(json, "field", session->arguments.words[0]);
    output_whole(json, "records", facets->records);
    output_whole(json, "nulls", facets->nulls);
    output_whole(json, "distinct", facets->values);
    output_open(json, "values", '[');
    while (omendb_facets_next(facets->handle, &facet) == OMENDB_OK) {
        output_open(json, NULL, '{');
        if (facet.type == OMENDB_VALUE_TEXT) {
            output_bytes(json, "value", facet.text, facet.text_size);
        } else {
            output_json_text(json, "value", facets_format(&facet, text));
        }
        output_whole(json, "records", facet.count);
        output_close(json, '}');
    }
    output_close(json, ']');
    output_close(json, '}');
}

/* A text on one line: its first characters, with blanks for what moves the cursor. */
static const char *facets_format_text(const omendb_facet *facet, char line[FACETS_TEXT_BYTES + 4])
{
    size_t length = facet->text_size < FACETS_TEXT_BYTES ? facet->text_size : FACETS_TEXT_BYTES;
    size_t i;

    while (length < facet->text_size && ((unsigned char)facet->text[length] & 0xc0) == 0x80) {
        length--;
    }
    for (i = 0; i < length; i++) {
        const unsigned char byte = (unsigned char)facet->text[i];

        line[i] = byte < 0x20 || byte == 0x7f ? ' ' : facet->text[i];
    }
    strcpy(line + length, length < facet->text_size ? "..." : "");
    return line;
}

/* As long as `count` is of `most`, at least one column. */
static void facets_add_bar(struct output_table *table, uint64_t count, uint64_t most)
{
    const size_t columns =
        (size_t)((double)FACETS_BAR_COLUMNS * (double)count / (double)most + 0.5);
    char bar[FACETS_BAR_COLUMNS + 1];

    memset(bar, '#', sizeof bar);
    bar[columns == 0 ? 1 : columns < FACETS_BAR_COLUMNS ? columns : FACETS_BAR_COLUMNS] = '\0';
    output_table_cell(table, bar);
}

/* Bars are for people who look at a terminal. */
static uint64_t facets_print_table(struct session *session, const struct facets *facets)
{
    const bool bars = isatty(STDOUT_FILENO) == 1;
    omendb_facet facet = OMENDB_FACET_INIT;
    char number[OUTPUT_TEXT_BYTES], line[FACETS_TEXT_BYTES + 4];
    struct output_table table;
    uint64_t told = 0, most = 0;

    output_table_begin(&table, bars ? "value|>records|" : "value|>records", &session->failure);
    for (; omendb_facets_next(facets->handle, &facet) == OMENDB_OK; told++) {
        most = told == 0 ? facet.count : most;
        output_table_cell(&table, facet.type == OMENDB_VALUE_TEXT ? facets_format_text(&facet, line)
                                                                  : facets_format(&facet, number));
        output_table_cell(&table, output_format_count(facet.count, number));
        if (bars) {
            facets_add_bar(&table, facet.count, most);
        }
    }
    output_table_print(&table, session->json.file);
    return told;
}

static void facets_print(struct session *session, const struct facets *facets)
{
    char records[OUTPUT_TEXT_BYTES], nulls[OUTPUT_TEXT_BYTES], values[OUTPUT_TEXT_BYTES];
    char told[OUTPUT_TEXT_BYTES];

    if (session->arguments.json) {
        facets_print_json(session, facets);
        return;
    }
    output_format_count(facets_print_table(session, facets), told);
    fprintf(session->json.file, "%s of %s value%s, %s record%s, %s of them without %s\n", told,
            output_format_count(facets->values, values), facets->values == 1 ? "" : "s",
            output_format_count(facets->records, records), facets->records == 1 ? "" : "s",
            output_format_count(facets->nulls, nulls), session->arguments.words[0]);
}

static int facets_count(struct session *session, struct facets *facets)
{
    const struct arguments *arguments = &session->arguments;
    const size_t limit = arguments->limit < SIZE_MAX ? (size_t)arguments->limit : SIZE_MAX;
    int code = session_result(
        session, omendb_facets_open(session->collection, NULL, session->filter, NULL, NULL,
                                    arguments->words[0], limit, &facets->handle));

    return code == OMENDB_OK
               ? session_result(session, omendb_facets_totals(facets->handle, &facets->records,
                                                              &facets->nulls, &facets->values))
               : code;
}

int command_facets(struct session *session)
{
    struct facets facets = {0};
    int code;

    if (session->arguments.limit_given && session->arguments.limit == 0) {
        return failure_set(&session->failure, FAILURE_USAGE, "--limit: at least 1 value");
    }
    code = session_open(session, SESSION_READ);
    if (code == OMENDB_OK) {
        code = session_open_collection(session);
    }
    if (code == OMENDB_OK) {
        code = session_compile_filter(session);
    }
    if (code == OMENDB_OK) {
        code = facets_count(session, &facets);
    }
    if (code == OMENDB_OK) {
        facets_print(session, &facets);
    }
    omendb_facets_close(facets.handle);
    return session->failure.code;
}

#undef FACETS_BAR_COLUMNS
#undef FACETS_TEXT_BYTES
