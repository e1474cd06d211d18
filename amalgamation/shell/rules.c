/* rules.c: what a collection takes: its limits, and the declared fields of its metadata. */
#include "commands.h"

#include <string.h>

static const char *const rules_types[] = {
    [OMENDB_FIELD_ANY] = "any",   [OMENDB_FIELD_I64] = "i64",   [OMENDB_FIELD_F64] = "f64",
    [OMENDB_FIELD_BOOL] = "bool", [OMENDB_FIELD_TEXT] = "text", [OMENDB_FIELD_TEXTS] = "texts"};

#define RULES_TYPES (sizeof rules_types / sizeof *rules_types)

static int rules_open(struct session *session, enum session_mode mode)
{
    int code = session_open(session, mode);

    return code == OMENDB_OK ? session_open_collection(session) : code;
}

/* limits, limit */

void command_limits_json(struct output_json *json, const omendb_limits *limits)
{
    output_open(json, "limits", '{');
    output_whole(json, "records", limits->records);
    output_whole(json, "bytes", limits->bytes);
    output_whole(json, "queries_per_second", limits->queries_per_second);
    output_whole(json, "writes_per_second", limits->writes_per_second);
    output_close(json, '}');
}

static void rules_limit_row(struct output_table *table, const char *what, const char *now,
                            uint64_t limit)
{
    char text[OUTPUT_TEXT_BYTES];

    output_table_cell(table, what);
    output_table_cell(table, now);
    output_table_cell(table, limit != 0 ? output_format_count(limit, text) : "none");
}

static void rules_print_limits(struct session *session, const omendb_limits *limits,
                               const omendb_collection_stats *stats)
{
    char records[OUTPUT_TEXT_BYTES], bytes[OUTPUT_TEXT_BYTES];
    struct output_table table;

    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_text(&session->json, "collection", session->name);
        output_whole(&session->json, "records", stats->records);
        output_whole(&session->json, "bytes", stats->bytes);
        command_limits_json(&session->json, limits);
        output_close(&session->json, '}');
        return;
    }
    output_table_begin(&table, "of|>now|>limit", &session->failure);
    rules_limit_row(&table, "records", output_format_count(stats->records, records),
                    limits->records);
    rules_limit_row(&table, "bytes", output_format_count(stats->bytes, bytes), limits->bytes);
    rules_limit_row(&table, "queries a second", "", limits->queries_per_second);
    rules_limit_row(&table, "writes a second", "", limits->writes_per_second);
    output_table_print(&table, session->json.file);
}

static int rules_read_limits(struct session *session, omendb_limits *limits,
                             omendb_collection_stats *stats)
{
    int code = session_result(session, omendb_collection_get_limits(session->collection, limits));

    return code == OMENDB_OK
               ? session_result(session, omendb_collection_get_stats(session->collection, stats))
               : code;
}

int command_limits(struct session *session)
{
    omendb_limits limits = OMENDB_LIMITS_INIT;
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    int code = rules_open(session, SESSION_READ);

    if (code == OMENDB_OK) {
        code = rules_read_limits(session, &limits, &stats);
    }
    if (code == OMENDB_OK) {
        rules_print_limits(session, &limits, &stats);
    }
    return session->failure.code;
}

static void rules_change_limits(const struct arguments *arguments, omendb_limits *limits)
{
    limits->records = arguments->records_given ? arguments->records : limits->records;
    limits->bytes = arguments->bytes_given ? arguments->bytes : limits->bytes;
    limits->queries_per_second =
        arguments->queries_given ? arguments->queries : limits->queries_per_second;
    limits->writes_per_second =
        arguments->writes_given ? arguments->writes : limits->writes_per_second;
}

int command_limit(struct session *session)
{
    const struct arguments *arguments = &session->arguments;
    omendb_limits limits = OMENDB_LIMITS_INIT;
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    int code;

    if (!arguments->records_given && !arguments->bytes_given && !arguments->queries_given &&
        !arguments->writes_given) {
        return failure_set(&session->failure, FAILURE_USAGE,
                           "which limit? --records N, --bytes N, --queries-per-second N, "
                           "--writes-per-second N");
    }
    code = rules_open(session, SESSION_WRITE);
    if (code == OMENDB_OK) {
        code = rules_read_limits(session, &limits, &stats);
    }
    if (code == OMENDB_OK) {
        rules_change_limits(arguments, &limits);
        code = session_result(session, omendb_collection_set_limits(session->collection, &limits));
    }
    if (code == OMENDB_OK && session_close(session) == OMENDB_OK) {
        rules_print_limits(session, &limits, &stats);
    }
    return session->failure.code;
}

/* fields, declare */

/* Goes through the declared fields, into JSON or the table; both NULL: only looks. */
static int rules_each_field(struct session *session, struct output_json *json,
                            struct output_table *table)
{
    omendb_field field = OMENDB_FIELD_INIT;
    char name[OMENDB_FIELD_MAX + 1];
    size_t i;

    for (i = 0;; i++) {
        const int code = omendb_collection_field(session->collection, i, &field, name, sizeof name);

        if (code != OMENDB_OK) {
            return code == OMENDB_DONE ? OMENDB_OK : session_result(session, code);
        }
        if (json != NULL) {
            output_open(json, NULL, '{');
            output_text(json, "name", name);
            output_text(json, "type", field.type < RULES_TYPES ? rules_types[field.type] : "");
            output_boolean(json, "required", field.required != 0);
            output_close(json, '}');
        } else if (table != NULL) {
            output_table_cell(table, name);
            output_table_cell(table, field.type < RULES_TYPES ? rules_types[field.type] : "");
            output_table_cell(table, field.required != 0 ? "yes" : "no");
        }
    }
}

static int rules_print_fields(struct session *session, int strict)
{
    struct output_json *json = &session->json;
    struct output_table table;
    int code = rules_each_field(session, NULL, NULL);

    if (code != OMENDB_OK) {
        return code;
    }
    if (session->arguments.json) {
        output_open(json, NULL, '{');
        output_text(json, "collection", session->name);
        output_boolean(json, "strict", strict != 0);
        output_open(json, "fields", '[');
        code = rules_each_field(session, json, NULL);
        output_close(json, ']');
        output_close(json, '}');
        return code;
    }
    output_table_begin(&table, "field|type|required", &session->failure);
    code = rules_each_field(session, NULL, &table);
    if (table.cell_count == 0) {
        failure_release(table.cells);
        fputs(strict != 0 ? "" : "no fields are declared\n", json->file);
    } else {
        output_table_print(&table, json->file);
    }
    fputs(strict != 0 ? "no other fields\n" : "", json->file);
    return code;
}

static int rules_show_fields(struct session *session)
{
    int strict = 0;
    int code =
        session_result(session, omendb_collection_declaration(session->collection, NULL, &strict));

    return code == OMENDB_OK ? rules_print_fields(session, strict) : code;
}

int command_fields(struct session *session)
{
    int code = rules_open(session, SESSION_READ);

    return code == OMENDB_OK ? rules_show_fields(session) : code;
}

/* "NAME:TYPE" or "NAME:TYPE!"; the name, which may have colons, is copied to `name`. */
static int rules_parse_field(struct session *session, const char *word, omendb_field *field,
                             char name[OMENDB_FIELD_MAX + 1])
{
    const char *colon = strrchr(word, ':');
    const char *type = colon != NULL ? colon + 1 : "";
    const size_t length = colon != NULL ? (size_t)(colon - word) : 0;
    const size_t type_length = strcspn(type, "!");

    omendb_field_init(field);
    field->name = name;
    field->required = strcmp(type + type_length, "!") == 0;
    for (; field->type < RULES_TYPES; field->type++) {
        if (strlen(rules_types[field->type]) == type_length &&
            strncmp(rules_types[field->type], type, type_length) == 0) {
            break;
        }
    }
    if (length == 0 || length > OMENDB_FIELD_MAX || field->type == RULES_TYPES ||
        (type[type_length] != '\0' && !field->required)) {
        return failure_set(&session->failure, FAILURE_USAGE,
                           "'%s' is no field with its type; FIELD:TYPE or FIELD:TYPE!, where TYPE "
                           "is i64, f64, bool, text, texts or any",
                           word);
    }
    memcpy(name, word, length);
    name[length] = '\0';
    return OMENDB_OK;
}

static int rules_declare(struct session *session, const omendb_field *fields)
{
    int code = rules_open(session, SESSION_WRITE);

    if (code == OMENDB_OK) {
        code = session_result(
            session, omendb_collection_declare(session->collection, session->arguments.word_count,
                                               fields, session->arguments.strict));
    }
    if (code == OMENDB_OK) {
        code = rules_show_fields(session);
    }
    return code;
}

int command_declare(struct session *session)
{
    const struct arguments *arguments = &session->arguments;
    const size_t count = arguments->word_count;
    omendb_field *fields = failure_allocate(&session->failure, count + 1, sizeof *fields);
    char(*names)[OMENDB_FIELD_MAX + 1] =
        failure_allocate(&session->failure, count + 1, sizeof *names);
    size_t i;
    int code = session->failure.code;

    if (code == OMENDB_OK && (count != 0 || arguments->strict) == arguments->none) {
        code = failure_set(&session->failure, FAILURE_USAGE,
                           "declare what? FIELD:TYPE... (with --strict nothing else), or --none");
    }
    for (i = 0; i < count && code == OMENDB_OK; i++) {
        code = rules_parse_field(session, arguments->words[i], &fields[i], names[i]);
    }
    if (code == OMENDB_OK) {
        code = rules_declare(session, fields);
    }
    failure_release(names);
    failure_release(fields);
    return code;
}

#undef RULES_TYPES
