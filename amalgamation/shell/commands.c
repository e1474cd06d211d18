/* commands.c: the short commands: records by id, what is in a database, its upkeep.
 *
 * Invariant: with --json exactly one JSON value is printed, on success or failure; a command prints
 * it only once nothing can fail any more, main() prints the failure otherwise. */
#include "commands.h"

#include <string.h>

#include "clamp.h"
#include "fields.h"
#include "json.h"
#include "progress.h"

#define COMMAND_MISSING_NAMED 8u

static int command_parse_id(struct session *session, const char *word, uint64_t *id)
{
    if (json_parse_whole(word, strlen(word), id) && *id != OMENDB_ID_AUTO) {
        return OMENDB_OK;
    }
    return failure_set(&session->failure, FAILURE_USAGE,
                       "'%s' is no id; ids are whole numbers from 0 to 18446744073709551614; "
                       "a key is given by --key",
                       word);
}

/* The ids of the command line as a new array, of one place where it has none; NULL sets the
 * failure.
 */
static uint64_t *command_parse_ids(struct session *session)
{
    const struct arguments *arguments = &session->arguments;
    const size_t count = arguments->word_count != 0 ? arguments->word_count : 1;
    uint64_t *ids = failure_allocate(&session->failure, count, sizeof *ids);
    size_t i;

    for (i = 0; ids != NULL && i < arguments->word_count; i++) {
        if (command_parse_id(session, arguments->words[i], &ids[i]) != OMENDB_OK) {
            failure_release(ids);
            return NULL;
        }
    }
    return ids;
}

/* Whether one way to name records was taken. */
static int command_check_choice(struct session *session, const char *ways)
{
    const struct arguments *arguments = &session->arguments;
    const int taken =
        (arguments->word_count != 0) + (arguments->key != NULL) + (arguments->filter != NULL);

    return taken == 1
               ? OMENDB_OK
               : failure_set(&session->failure, FAILURE_USAGE, "which records? one of %s", ways);
}

/* get, count */

static void command_print_record(struct session *session, uint64_t id, const float *vector,
                                 const struct fields *fields)
{
    FILE *file = session->json.file;
    uint32_t i;

    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_whole(&session->json, "id", id);
        output_vector(&session->json, "vector", vector, session->schema.dim);
        fields_print_json(&session->json, fields);
        output_close(&session->json, '}');
        return;
    }
    fprintf(file, "%llu  [", (unsigned long long)id);
    for (i = 0; i < session->schema.dim; i++) {
        char text[OUTPUT_FLOAT_BYTES];

        fprintf(file, "%s%s", i == 0 ? "" : ", ", output_format_float(vector[i], text));
    }
    fprintf(file, "]%s%s%s%s\n", fields_have_key(fields) ? "  " : "", fields->key,
            fields_have_metadata(fields) ? "  " : "",
            fields_have_metadata(fields) ? fields->metadata : "");
}

/* A record that is not there, in its place in the JSON. */
static void command_print_missing(struct session *session, uint64_t id)
{
    output_open(&session->json, NULL, '{');
    output_whole(&session->json, "id", id);
    output_text(&session->json, "error", session->failure.message);
    output_text(&session->json, "code", omendb_strerror(OMENDB_NOTFOUND));
    output_close(&session->json, '}');
    session->reported = true;
}

/* Adds to the list of ids that are not there; of many only the first. */
static void command_add_missing(struct session *session, uint64_t id, size_t number)
{
    if (number == 0) {
        failure_set(&session->failure, OMENDB_NOTFOUND, "collection %s has no %llu", session->name,
                    (unsigned long long)id);
    } else if (number < COMMAND_MISSING_NAMED) {
        failure_suffix(&session->failure, ", %llu", (unsigned long long)id);
    } else if (number == COMMAND_MISSING_NAMED) {
        failure_suffix(&session->failure, ", ...");
    }
}

/* Records to be printed, in the order of the command line. */
struct command_records {
    size_t count;
    uint64_t *ids;
    float *vectors;
    bool *found;
    struct fields fields; /* of the record at hand */
};

/* Reads the records, and their fields once, so that printing them cannot fail. */
static int command_read_records(struct session *session, struct command_records *records)
{
    const size_t dim = session->schema.dim;
    size_t i, missing = 0;

    for (i = 0; i < records->count; i++) {
        int code = omendb_get(session->collection, NULL, records->ids[i], OMENDB_F32,
                              records->vectors + i * dim);

        records->found[i] = code == OMENDB_OK;
        if (code == OMENDB_OK) {
            code = fields_read(session, records->ids[i], &records->fields);
        }
        if (code != OMENDB_OK && code != OMENDB_NOTFOUND) {
            return session_result(session, code);
        }
    }
    for (i = 0; i < records->count; i++) {
        if (!records->found[i]) {
            command_add_missing(session, records->ids[i], missing++);
        }
    }
    return OMENDB_OK;
}

static void command_print_records(struct session *session, struct command_records *records)
{
    size_t i;

    for (i = 0; i < records->count; i++) {
        const uint64_t id = records->ids[i];

        if (records->found[i]) {
            fields_read(session, id, &records->fields);
            command_print_record(session, id, records->vectors + i * session->schema.dim,
                                 &records->fields);
        } else if (session->arguments.json) {
            command_print_missing(session, id);
        }
    }
}

static int command_get_records(struct session *session, struct command_records *records)
{
    const bool as_array = session->arguments.json && records->count > 1;
    int code = command_read_records(session, records);

    if (code != OMENDB_OK) {
        return code;
    }
    if (as_array) {
        output_open(&session->json, NULL, '[');
    }
    command_print_records(session, records);
    if (as_array) {
        output_close(&session->json, ']');
    }
    return session->failure.code;
}

/* The record of --key is the only one. */
static int command_find_key(struct session *session, uint64_t *id)
{
    const char *key = session->arguments.key;

    return key == NULL ? OMENDB_OK
                       : session_result(session, omendb_find(session->collection, NULL, key, id));
}

static int command_open_records(struct session *session, struct command_records *records)
{
    int code = session_open(session, SESSION_READ);

    if (code == OMENDB_OK) {
        code = session_open_collection(session);
    }
    if (code == OMENDB_OK) {
        code = command_find_key(session, records->ids);
    }
    if (code == OMENDB_OK) {
        records->count = session->arguments.key != NULL ? 1 : session->arguments.word_count;
        records->vectors = failure_allocate(&session->failure, records->count,
                                            session->schema.dim * sizeof *records->vectors);
        records->found =
            failure_allocate(&session->failure, records->count, sizeof *records->found);
        code = session->failure.code;
    }
    return code;
}

int command_get(struct session *session)
{
    struct command_records records = {0};
    int code = command_check_choice(session, "ID..., --key KEY");

    if (code == OMENDB_OK) {
        records.ids = command_parse_ids(session);
        code =
            records.ids == NULL ? session->failure.code : command_open_records(session, &records);
    }
    if (code == OMENDB_OK) {
        code = fields_choose(session, &records.fields);
    }
    if (code == OMENDB_OK) {
        code = command_get_records(session, &records);
    }
    fields_release(&records.fields);
    failure_release(records.vectors);
    failure_release(records.found);
    failure_release(records.ids);
    return code;
}

int command_count(struct session *session)
{
    uint64_t records = 0;
    int code = session_open(session, SESSION_READ);

    if (code == OMENDB_OK) {
        code = session_open_collection(session);
    }
    if (code == OMENDB_OK) {
        code = session_compile_filter(session);
    }
    if (code == OMENDB_OK) {
        code =
            session_result(session, omendb_count_matching(session->collection, NULL,
                                                          session->filter, NULL, NULL, &records));
    }
    if (code != OMENDB_OK) {
        return code;
    }
    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_text(&session->json, "collection", session->name);
        output_whole(&session->json, "records", records);
        output_close(&session->json, '}');
    } else {
        fprintf(session->json.file, "%llu\n", (unsigned long long)records);
    }
    return OMENDB_OK;
}

/* put */

static void command_print_put(struct session *session, uint64_t id, uint64_t clamped)
{
    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_text(&session->json, "collection", session->name);
        output_whole(&session->json, "id", id);
        output_whole(&session->json, "clamped", clamped);
        output_close(&session->json, '}');
    } else {
        fprintf(session->json.file, "stored %llu in %s\n", (unsigned long long)id, session->name);
        clamp_warn(session, clamped, session->schema.dim);
    }
}

static int command_put_record(struct session *session, uint64_t *id, float *vector)
{
    const struct arguments *arguments = &session->arguments;
    omendb_record record = OMENDB_RECORD_INIT;
    int code = command_parse_vector(session, "the vector",
                                    arguments->words[arguments->word_count - 1], vector);

    record.id = *id;
    record.vector = vector;
    record.key = arguments->key;
    record.metadata = arguments->metadata;
    return code == OMENDB_OK
               ? session_result(session, omendb_put(session->collection, NULL, &record, id))
               : code;
}

int command_put(struct session *session)
{
    const char *word = session->arguments.words[0];
    uint64_t id = OMENDB_ID_AUTO, clamped = 0;
    float *vector = NULL;
    int code;

    if (session->arguments.word_count == 2 && command_parse_id(session, word, &id) != OMENDB_OK) {
        return session->failure.code;
    }
    code = session_open(session, SESSION_WRITE);
    if (code == OMENDB_OK) {
        code = session_open_collection(session);
    }
    if (code == OMENDB_OK) {
        vector = failure_allocate(&session->failure, session->schema.dim, sizeof *vector);
        code = vector != NULL ? command_put_record(session, &id, vector) : OMENDB_NOMEM;
    }
    if (code == OMENDB_OK) {
        clamped = clamp_count(&session->schema, OMENDB_F32, vector, session->schema.dim);
        code = session_close(session);
    }
    failure_release(vector);
    if (code == OMENDB_OK) {
        command_print_put(session, id, clamped);
    }
    return code;
}

/* update */

static void command_print_updated(struct session *session, uint64_t id)
{
    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_text(&session->json, "collection", session->name);
        output_whole(&session->json, "id", id);
        output_close(&session->json, '}');
    } else {
        fprintf(session->json.file, "updated %llu in %s\n", (unsigned long long)id, session->name);
    }
}

/* No transaction holds --key and its record together: the shell is the only writer. */
int command_update(struct session *session)
{
    const struct arguments *arguments = &session->arguments;
    uint64_t id = OMENDB_ID_AUTO;
    int code = OMENDB_OK;

    if ((arguments->word_count == 2) == (arguments->key != NULL)) {
        code = failure_set(&session->failure, FAILURE_USAGE,
                           "which record? one of ID JSON, --key KEY JSON");
    } else if (arguments->key == NULL) {
        code = command_parse_id(session, arguments->words[0], &id);
    }
    if (code == OMENDB_OK) {
        code = session_open(session, SESSION_WRITE);
    }
    if (code == OMENDB_OK) {
        code = session_open_collection(session);
    }
    if (code == OMENDB_OK) {
        code = command_find_key(session, &id);
    }
    if (code == OMENDB_OK) {
        code = session_result(session, omendb_update(session->collection, NULL, id,
                                                     arguments->words[arguments->word_count - 1]));
    }
    if (code == OMENDB_OK && session_close(session) == OMENDB_OK) {
        command_print_updated(session, id);
    }
    return session->failure.code;
}

/* delete, create, drop */

/* Deletes what the command line names: those of --filter, the one of --key, or `ids`. */
static int command_delete_records(struct session *session, const uint64_t *ids, uint64_t *deleted)
{
    const struct arguments *arguments = &session->arguments;
    size_t count = 0;
    int code = session_compile_filter(session);

    if (code != OMENDB_OK) {
        return code;
    }
    if (arguments->filter != NULL) {
        return session_result(session,
                              omendb_delete_matching(session->collection, NULL, session->filter,
                                                     NULL, NULL, deleted));
    }
    if (arguments->key != NULL) {
        code = omendb_delete_key(session->collection, NULL, arguments->key);
        *deleted = code == OMENDB_OK;
        return code == OMENDB_NOTFOUND ? OMENDB_OK : session_result(session, code);
    }
    code = session_result(session, omendb_delete_batch(session->collection, NULL,
                                                       arguments->word_count, ids, &count));
    *deleted = count;
    return code;
}

/* named: how many the command line names; of a filter as many as it found. */
static void command_print_deleted(struct session *session, uint64_t deleted, uint64_t named)
{
    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_whole(&session->json, "deleted", deleted);
        output_whole(&session->json, "missing", named - deleted);
        output_close(&session->json, '}');
    } else {
        fprintf(session->json.file, "deleted %llu of %llu from %s%s\n", (unsigned long long)deleted,
                (unsigned long long)named, session->name,
                deleted < named ? "; the others are not there" : "");
    }
}

int command_delete(struct session *session)
{
    const struct arguments *arguments = &session->arguments;
    uint64_t *ids = NULL;
    uint64_t deleted = 0;
    int code = command_check_choice(session, "ID..., --key KEY, --filter CONDITION");

    if (code == OMENDB_OK) {
        ids = command_parse_ids(session);
        code = ids == NULL ? session->failure.code : session_open(session, SESSION_WRITE);
    }
    if (code == OMENDB_OK) {
        code = session_open_collection(session);
    }
    if (code == OMENDB_OK) {
        code = command_delete_records(session, ids, &deleted);
    }
    failure_release(ids);
    if (code != OMENDB_OK || session_close(session) != OMENDB_OK) {
        return session->failure.code;
    }
    command_print_deleted(session, deleted,
                          arguments->filter != NULL ? deleted
                          : arguments->key != NULL  ? 1
                                                    : arguments->word_count);
    return OMENDB_OK;
}

/* For session_open_or_create, too, so that a schema that is refused makes no database. */
static int command_create_collection(void *context)
{
    struct session *session = context;

    return session_result(session,
                          omendb_collection_create(session->db, session->name, &session->schema,
                                                   &session->collection));
}

static int command_print_created(struct session *session)
{
    const omendb_schema *schema = &session->schema;

    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_text(&session->json, "created", session->name);
        output_whole(&session->json, "dim", schema->dim);
        output_text(&session->json, "metric", omendb_metric_name((int)schema->metric));
        output_text(&session->json, "type", omendb_scalar_name((int)schema->scalar));
        output_close(&session->json, '}');
    } else {
        fprintf(session->json.file, "created %s: vectors of %lu x %s, %s\n", session->name,
                (unsigned long)schema->dim, omendb_scalar_name((int)schema->scalar),
                omendb_metric_name((int)schema->metric));
    }
    return OMENDB_OK;
}

int command_create(struct session *session)
{
    const struct arguments *arguments = &session->arguments;
    int code = OMENDB_OK;

    if (arguments->dim == 0) {
        code = failure_set(&session->failure, FAILURE_USAGE,
                           "create: --dim N is needed, the elements of a vector");
    } else if (strlen(arguments->words[0]) >= sizeof session->name) {
        code = failure_set(&session->failure, OMENDB_INVALID, "a name has at most 255 bytes");
    } else {
        strcpy(session->name, arguments->words[0]);
        command_fill_schema(arguments, (uint32_t)arguments->dim, OMENDB_F32, &session->schema);
        code = session_open_or_create(session, command_create_collection, session);
    }
    if (code == OMENDB_OK) {
        code = command_create_collection(session);
    }
    if (code == OMENDB_OK) {
        code = session_close(session);
    }
    return code == OMENDB_OK ? command_print_created(session) : code;
}

int command_drop(struct session *session)
{
    const char *name = session->arguments.words[0];
    int code = session_open(session, SESSION_WRITE);

    if (code == OMENDB_OK) {
        code = session_result(session, omendb_collection_drop(session->db, name));
        if (code == OMENDB_NOTFOUND) {
            failure_suffix(&session->failure, "; `omendb %s collections` lists them",
                           session->arguments.database);
        }
    }
    if (code != OMENDB_OK || session_close(session) != OMENDB_OK) {
        return session->failure.code;
    }
    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_text(&session->json, "dropped", name);
        output_close(&session->json, '}');
    } else {
        fprintf(session->json.file, "dropped %s\n", name);
    }
    return OMENDB_OK;
}

/* prepared, commit, rollback, forget */

static const char *command_name_state(int state)
{
    return state == OMENDB_PREPARED_WAITING     ? "waiting"
           : state == OMENDB_PREPARED_COMMITTED ? "committed"
                                                : "rolled back";
}

/* Goes through the prepared transactions, into JSON or the table; both NULL: only looks. */
static int command_each_prepared(struct session *session, struct output_json *json,
                                 struct output_table *table)
{
    char name[OMENDB_PREPARED_NAME_MAX + 1];
    size_t i;
    int code, state;

    for (i = 0;; i++) {
        code = omendb_prepared_name(session->db, i, name, sizeof name, &state);
        if (code != OMENDB_OK) {
            return code == OMENDB_DONE ? OMENDB_OK : session_result(session, code);
        }
        if (json != NULL) {
            output_open(json, NULL, '{');
            output_text(json, "name", name);
            output_text(json, "state", command_name_state(state));
            output_close(json, '}');
        } else if (table != NULL) {
            output_table_cell(table, name);
            output_table_cell(table, command_name_state(state));
        }
    }
}

static int command_prepared_table(struct session *session)
{
    struct output_table table;
    int code;

    output_table_begin(&table, "prepared|state", &session->failure);
    code = command_each_prepared(session, NULL, &table);
    if (table.cell_count == 0) {
        fputs("no prepared transactions\n", session->json.file);
        failure_release(table.cells);
    } else {
        output_table_print(&table, session->json.file);
    }
    return code;
}

int command_prepared(struct session *session)
{
    int code = session_open(session, SESSION_READ);

    if (code == OMENDB_OK) {
        code = command_each_prepared(session, NULL, NULL);
    }
    if (code != OMENDB_OK || !session->arguments.json) {
        return code == OMENDB_OK ? command_prepared_table(session) : code;
    }
    output_open(&session->json, NULL, '[');
    code = command_each_prepared(session, &session->json, NULL);
    output_close(&session->json, ']');
    return code;
}

/* Calls `settle` with the name that was given; what was done is told by `done`. */
static int command_settle(struct session *session, int (*settle)(omendb *db, const char *name),
                          const char *done)
{
    const char *name = session->arguments.words[0];
    int code = session_open(session, SESSION_WRITE);

    if (code == OMENDB_OK) {
        code = session_result(session, settle(session->db, name));
        if (code == OMENDB_NOTFOUND) {
            failure_suffix(&session->failure, "; `omendb %s prepared` lists them",
                           session->arguments.database);
        }
    }
    if (code != OMENDB_OK || session_close(session) != OMENDB_OK) {
        return session->failure.code;
    }
    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_text(&session->json, "name", name);
        output_text(&session->json, "state", done);
        output_close(&session->json, '}');
    } else {
        fprintf(session->json.file, "%s: %s\n", name, done);
    }
    return OMENDB_OK;
}

int command_commit(struct session *session)
{
    return command_settle(session, omendb_commit_prepared,
                          command_name_state(OMENDB_PREPARED_COMMITTED));
}

int command_rollback(struct session *session)
{
    return command_settle(session, omendb_rollback_prepared,
                          command_name_state(OMENDB_PREPARED_ROLLED_BACK));
}

int command_forget(struct session *session)
{
    return command_settle(session, omendb_forget_prepared, "forgotten");
}

/* info, collections */

static int command_read_collection(struct session *session, const char *name,
                                   omendb_collection_stats *stats, omendb_limits *limits)
{
    const omendb_collection_stats empty = OMENDB_COLLECTION_STATS_INIT;
    int code = session_result(
        session, omendb_collection_open(session->db, name, NULL, &session->collection));

    *stats = empty;
    omendb_limits_init(limits);
    omendb_schema_init(&session->schema);
    if (code == OMENDB_OK) {
        code = session_result(session,
                              omendb_collection_schema(session->collection, &session->schema));
    }
    if (code == OMENDB_OK) {
        code = session_result(session, omendb_collection_get_stats(session->collection, stats));
    }
    if (code == OMENDB_OK) {
        code = session_result(session, omendb_collection_get_limits(session->collection, limits));
    }
    omendb_collection_close(session->collection);
    session->collection = NULL;
    return code;
}

static void command_collection_json(struct session *session, const char *name,
                                    const omendb_collection_stats *stats,
                                    const omendb_limits *limits)
{
    const omendb_schema *schema = &session->schema;
    struct output_json *json = &session->json;

    output_open(json, NULL, '{');
    output_text(json, "name", name);
    output_whole(json, "records", stats->records);
    output_whole(json, "dim", schema->dim);
    output_text(json, "metric", omendb_metric_name((int)schema->metric));
    output_text(json, "type", omendb_scalar_name((int)schema->scalar));
    output_float(json, "scale", schema->scale);
    output_whole(json, "M", schema->M);
    output_whole(json, "ef_construction", schema->ef_construction);
    output_whole(json, "ef", schema->ef);
    output_whole(json, "rows", stats->rows);
    output_whole(json, "unindexed_rows", stats->unindexed_rows);
    output_whole(json, "segments", stats->segments);
    output_whole(json, "segment_bytes", stats->segment_bytes);
    output_whole(json, "next_id", stats->next_id);
    output_whole(json, "hot_bytes", stats->hot_bytes);
    output_float(json, "recall", stats->recall);
    output_whole(json, "recall_queries", stats->recall_queries);
    output_whole(json, "bytes", stats->bytes);
    command_limits_json(json, limits);
    output_close(json, '}');
}

/* What the curve promises to a search without --recall: "0.986 at ef 64". */
static const char *command_format_curve(const omendb_schema *schema,
                                        const omendb_collection_stats *stats,
                                        char text[OUTPUT_TEXT_BYTES])
{
    if (stats->recall_queries == 0) {
        return "no";
    }
    if (!(stats->recall > 0)) {
        return "yes";
    }
    snprintf(text, OUTPUT_TEXT_BYTES, "%.3f at ef %lu", (double)stats->recall,
             (unsigned long)schema->ef);
    return text;
}

static void command_collection_cells(struct session *session, struct output_table *table,
                                     const char *name, const omendb_collection_stats *stats)
{
    const omendb_schema *schema = &session->schema;
    char text[OUTPUT_TEXT_BYTES];

    output_table_cell(table, name);
    output_table_cell(table, output_format_count(stats->records, text));
    output_table_cell(table, output_format_count(schema->dim, text));
    output_table_cell(table, omendb_metric_name((int)schema->metric));
    output_table_cell(table, omendb_scalar_name((int)schema->scalar));
    output_table_cell(table, output_format_count(schema->M, text));
    output_table_cell(table, output_format_count(schema->ef_construction, text));
    output_table_cell(table, output_format_count(stats->rows - stats->records, text));
    output_table_cell(table, output_format_count(stats->unindexed_rows, text));
    output_table_cell(table, output_format_count(stats->segments, text));
    output_table_cell(table, command_format_curve(schema, stats, text));
    output_table_cell(table, output_format_bytes(stats->segment_bytes, text));
}

/* Adds one limit to the line about `name`; a line that was not begun has no separator yet. */
static void command_use_of(FILE *file, const char *name, const char **separator, const char *what,
                           const char *now, uint64_t limit)
{
    char text[OUTPUT_TEXT_BYTES];

    if (limit == 0) {
        return;
    }
    if (*separator == NULL) {
        fprintf(file, "limits of %s: ", name);
    }
    fprintf(file, "%s%s %s%s%s", *separator != NULL ? *separator : "", what, now,
            *now != '\0' ? " of " : "", output_format_count(limit, text));
    *separator = ", ";
}

/* "limits of docs: records 5 of 100, bytes 1,024 of 1,000,000"; nothing where there are none. */
static void command_collection_use(struct session *session, const char *name,
                                   const omendb_collection_stats *stats,
                                   const omendb_limits *limits)
{
    char now[OUTPUT_TEXT_BYTES];
    const char *separator = NULL;
    FILE *file = session->json.file;

    command_use_of(file, name, &separator, "records", output_format_count(stats->records, now),
                   limits->records);
    command_use_of(file, name, &separator, "bytes", output_format_count(stats->bytes, now),
                   limits->bytes);
    command_use_of(file, name, &separator, "queries a second", "", limits->queries_per_second);
    command_use_of(file, name, &separator, "writes a second", "", limits->writes_per_second);
    fputs(separator != NULL ? "\n" : "", file);
}

/* How the collections are gone through: what is done with each. */
enum command_listing {
    COMMAND_LIST_JSON,
    COMMAND_LIST_CELLS, /* of the table */
    COMMAND_LIST_USE    /* of the limits, as lines */
};

/* Goes through the collections (only one of them with --collection). table: of the cells. */
static int command_each_collection(struct session *session, enum command_listing listing,
                                   struct output_table *table)
{
    omendb_collection_stats stats;
    omendb_limits limits;
    char name[256];
    size_t i;
    int code;

    for (i = 0;; i++) {
        code = omendb_collection_name(session->db, i, name, sizeof name);
        if (code != OMENDB_OK) {
            return code == OMENDB_DONE ? OMENDB_OK : session_result(session, code);
        }
        if (session->arguments.collection != NULL &&
            strcmp(session->arguments.collection, name) != 0) {
            continue;
        }
        code = command_read_collection(session, name, &stats, &limits);
        if (code != OMENDB_OK) {
            return code;
        }
        if (listing == COMMAND_LIST_JSON) {
            command_collection_json(session, name, &stats, &limits);
        } else if (listing == COMMAND_LIST_CELLS) {
            command_collection_cells(session, table, name, &stats);
        } else {
            command_collection_use(session, name, &stats, &limits);
        }
    }
}

static const char command_collection_titles[] =
    "collection|>records|>dim|metric|type|>M|>ef_construction|>dead|>unindexed|>segments|"
    "calibrated|>size";

static int command_collection_table(struct session *session)
{
    struct output_table table;
    int code;

    output_table_begin(&table, command_collection_titles, &session->failure);
    code = command_each_collection(session, COMMAND_LIST_CELLS, &table);
    if (table.cell_count == 0) {
        fputs("no collections\n", session->json.file);
        failure_release(table.cells);
    } else {
        output_table_print(&table, session->json.file);
    }
    return code;
}

static void command_info_line(FILE *file, const char *name, const char *value)
{
    fprintf(file, "%-10s  %s\n", name, value);
}

static void command_info_text(struct session *session, const omendb_stats *stats)
{
    char text[OUTPUT_TEXT_BYTES];
    FILE *file = session->json.file;

    command_info_line(file, "database", session->arguments.database);
    command_info_line(file, "records", output_format_count(stats->records, text));
    command_info_line(file, "commits", output_format_count(stats->commits, text));
    command_info_line(file, "files", output_format_bytes(stats->file_bytes, text));
    command_info_line(file, "log", output_format_bytes(stats->wal_bytes, text));
    command_info_line(file, "memory", output_format_bytes(stats->memory_bytes, text));
    command_info_line(file, "mapped", output_format_bytes(stats->mapped_bytes, text));
    if (stats->prepared_transactions != 0) {
        fprintf(file, "%-10s  %s waiting; `omendb %s prepared` lists them\n", "prepared",
                output_format_count(stats->prepared_transactions, text),
                session->arguments.database);
    }
    fprintf(file, "%-10s  %s, format %d, %s\n\n", "omendb", omendb_version(),
            omendb_format_version(), omendb_kernels());
}

static void command_info_json(struct session *session, const omendb_stats *stats)
{
    struct output_json *json = &session->json;

    output_text(json, "database", session->arguments.database);
    output_whole(json, "records", stats->records);
    output_whole(json, "commits", stats->commits);
    output_whole(json, "file_bytes", stats->file_bytes);
    output_whole(json, "wal_bytes", stats->wal_bytes);
    output_whole(json, "memory_bytes", stats->memory_bytes);
    output_whole(json, "mapped_bytes", stats->mapped_bytes);
    output_whole(json, "prepared_transactions", stats->prepared_transactions);
    output_text(json, "version", omendb_version());
    output_whole(json, "format_version", (uint64_t)omendb_format_version());
    output_text(json, "kernels", omendb_kernels());
}

/* JSON is written while collections are read: on a failure half an object would stand there, so
 * the collections are read once before. */
static int command_rehearse(struct session *session)
{
    struct output_table table;
    int code;

    output_table_begin(&table, command_collection_titles, &session->failure);
    code = command_each_collection(session, COMMAND_LIST_CELLS, &table);
    failure_release(table.cells);
    return code != OMENDB_OK ? code : session->failure.code;
}

int command_info(struct session *session)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    int code = session_open(session, SESSION_READ);

    if (code == OMENDB_OK) {
        code = command_rehearse(session);
    }
    if (code == OMENDB_OK) {
        code = session_result(session, omendb_get_stats(session->db, &stats));
    }
    if (code != OMENDB_OK) {
        return code;
    }
    if (!session->arguments.json) {
        command_info_text(session, &stats);
        code = command_collection_table(session);
        return code == OMENDB_OK ? command_each_collection(session, COMMAND_LIST_USE, NULL) : code;
    }
    output_open(&session->json, NULL, '{');
    command_info_json(session, &stats);
    output_open(&session->json, "collections", '[');
    code = command_each_collection(session, COMMAND_LIST_JSON, NULL);
    output_close(&session->json, ']');
    output_close(&session->json, '}');
    return code;
}

int command_collections(struct session *session)
{
    int code = session_open(session, SESSION_READ);

    if (code == OMENDB_OK) {
        code = command_rehearse(session);
    }
    if (code != OMENDB_OK || !session->arguments.json) {
        return code == OMENDB_OK ? command_collection_table(session) : code;
    }
    output_open(&session->json, NULL, '[');
    code = command_each_collection(session, COMMAND_LIST_JSON, NULL);
    output_close(&session->json, ']');
    return code;
}

/* optimize, purge, check, backup, salvage */

int command_progress(void *context, uint64_t done, uint64_t total)
{
    progress_update(context, done, total != 0 ? (double)done / (double)total : -1);
    return session_interrupted();
}

int command_run_optimize(struct session *session)
{
    struct progress progress;
    int code;

    session_catch_interrupt();
    progress_begin(&progress, "optimizing", "rows");
    code = omendb_optimize(session->db, command_progress, &progress);
    progress_end(&progress);
    if (code == OMENDB_OK && session_interrupted()) {
        return failure_set(&session->failure, OMENDB_BUSY,
                           "interrupted; what is finished stays, run it again for the rest");
    }
    return session_result(session, code);
}

static void command_print_time(struct session *session, const char *what, uint64_t start_us)
{
    const uint64_t us = progress_now_us() - start_us;
    char text[OUTPUT_TEXT_BYTES];

    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_boolean(&session->json, "ok", true);
        output_whole(&session->json, "time_us", us);
        output_close(&session->json, '}');
    } else {
        fprintf(session->json.file, "%s in %s\n", what, output_format_time(us, text));
    }
}

int command_optimize(struct session *session)
{
    const uint64_t start_us = progress_now_us();
    int code = session_open(session, SESSION_WRITE);

    if (code == OMENDB_OK) {
        code = command_run_optimize(session);
    }
    if (code == OMENDB_OK && session_close(session) == OMENDB_OK) {
        command_print_time(session, "optimized", start_us);
    }
    return session->failure.code;
}

int command_purge(struct session *session)
{
    const struct arguments *arguments = &session->arguments;
    const char *collection = arguments->word_count != 0 ? arguments->words[0] : NULL;
    const uint64_t start_us = progress_now_us();
    int code = session_open(session, SESSION_WRITE);

    if (code == OMENDB_OK) {
        code = session_result(session, omendb_purge(session->db, collection));
    }
    if (code == OMENDB_OK && session_close(session) == OMENDB_OK) {
        command_print_time(session, "purged", start_us);
    }
    return session->failure.code;
}

static void command_print_backup(struct session *session, uint64_t start_us)
{
    const uint64_t us = progress_now_us() - start_us;
    omendb_stats stats = OMENDB_STATS_INIT;
    char copied[OUTPUT_TEXT_BYTES], kept[OUTPUT_TEXT_BYTES], text[OUTPUT_TEXT_BYTES];

    if (session_result(session, omendb_get_stats(session->db, &stats)) != OMENDB_OK) {
        return;
    }
    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_boolean(&session->json, "ok", true);
        output_whole(&session->json, "copied_bytes", stats.backup_bytes);
        output_whole(&session->json, "kept_bytes", stats.backup_kept_bytes);
        output_whole(&session->json, "time_us", us);
        output_close(&session->json, '}');
        return;
    }
    output_format_bytes(stats.backup_bytes, copied);
    output_format_bytes(stats.backup_kept_bytes, kept);
    fprintf(session->json.file, "copied %s in %s", copied, output_format_time(us, text));
    if (stats.backup_kept_bytes != 0) {
        fprintf(session->json.file, "; %s were there already", kept);
    }
    fprintf(session->json.file, "\n");
}

int command_backup(struct session *session)
{
    const uint64_t start_us = progress_now_us();
    int code = session_open(session, SESSION_WRITE); /* a backup begins with a checkpoint */

    if (code == OMENDB_OK) {
        code = session_result(session, omendb_backup(session->db, session->arguments.words[0]));
    }
    if (code == OMENDB_OK) {
        command_print_backup(session, start_us);
    }
    return session->failure.code;
}

static void command_check_line(void *context, const char *line)
{
    struct session *session = context;

    if (session->arguments.json) {
        output_text(&session->json, NULL, line);
    } else {
        fprintf(session->json.file, "%s\n", line);
    }
}

int command_check(struct session *session)
{
    const bool as_json = session->arguments.json;
    uint64_t problems = 0;
    int code = session_open(session, SESSION_READ);

    if (code != OMENDB_OK) {
        return code;
    }
    if (as_json) {
        output_open(&session->json, NULL, '{');
        output_open(&session->json, "problems", '[');
    }
    code =
        session_result(session, omendb_check(session->db, command_check_line, session, &problems));
    if (code == OMENDB_OK && problems != 0) {
        failure_set(&session->failure, OMENDB_CORRUPT,
                    "%llu problem%s; restore a backup, or `omendb %s salvage PATH` saves what is "
                    "intact",
                    (unsigned long long)problems, problems == 1 ? "" : "s",
                    session->arguments.database);
    }
    if (as_json) {
        output_close(&session->json, ']');
        output_boolean(&session->json, "ok", session->failure.code == OMENDB_OK);
        if (session->failure.code != OMENDB_OK) {
            output_text(&session->json, "error", session->failure.message);
            output_text(&session->json, "code", omendb_strerror(session->failure.code));
        }
        output_close(&session->json, '}');
        session->reported = true;
    } else if (session->failure.code == OMENDB_OK) {
        fprintf(session->json.file, "%s: no problems\n", session->arguments.database);
    }
    return session->failure.code;
}

static void command_print_salvaged(struct session *session, const omendb_salvage_result *result)
{
    struct output_json *json = &session->json;
    char text[OUTPUT_TEXT_BYTES];

    if (session->arguments.json) {
        output_boolean(json, "ok", true);
        output_whole(json, "collections", result->collections);
        output_whole(json, "records", result->records);
        output_whole(json, "lost_rows", result->lost_rows);
        output_whole(json, "doubtful", result->doubtful);
        output_whole(json, "lost_files", result->lost_files);
        output_whole(json, "lost_bytes", result->lost_bytes);
        return;
    }
    fprintf(json->file, "%s: saved %llu records in %llu collection%s, %llu known to be lost",
            session->arguments.words[0], (unsigned long long)result->records,
            (unsigned long long)result->collections, result->collections == 1 ? "" : "s",
            (unsigned long long)result->lost_rows);
    if (result->lost_files != 0) {
        fprintf(json->file, ", and what %llu lost file%s held (%s)",
                (unsigned long long)result->lost_files, result->lost_files == 1 ? "" : "s",
                result->lost_bytes != 0 ? output_format_bytes(result->lost_bytes, text)
                                        : "of unknown size");
    }
    if (result->doubtful != 0) {
        fprintf(json->file, "; among %llu there may be deleted ones",
                (unsigned long long)result->doubtful);
    }
    fputc('\n', json->file);
}

int command_salvage(struct session *session)
{
    const bool as_json = session->arguments.json;
    omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
    int code;

    if (as_json) {
        output_open(&session->json, NULL, '{');
        output_open(&session->json, "problems", '[');
    }
    code = session_result(session,
                          omendb_salvage(session->arguments.database, session->arguments.words[0],
                                         NULL, command_check_line, session, &result));
    if (as_json) {
        output_close(&session->json, ']');
    }
    if (code == OMENDB_OK) {
        command_print_salvaged(session, &result);
        if (result.problems != 0) {
            code =
                failure_set(&session->failure, OMENDB_CORRUPT,
                            "%llu problem%s: what could be read is saved, what could not is lost",
                            (unsigned long long)result.problems, result.problems == 1 ? "" : "s");
        }
    } else if (as_json) {
        output_boolean(&session->json, "ok", false);
        output_text(&session->json, "error", session->failure.message);
        output_text(&session->json, "code", omendb_strerror(session->failure.code));
    }
    if (as_json) {
        output_close(&session->json, '}');
        session->reported = true;
    }
    return code;
}

#undef COMMAND_MISSING_NAMED
