/* fields.c: key and metadata of records, read by id.
 *
 * Invariant: commands that show them have the database open read-only, which stands still, so what
 * is read by id belongs to the record that was found. A failure comes from reading, never from
 * printing: a command that must not print half of a JSON value reads all records once before. */
#include "fields.h"

#include <string.h>

#define FIELDS_CAPACITY 4096u

int fields_choose(struct session *session, struct fields *fields)
{
    const char *given = session->arguments.fields;
    char *name;

    if (given == NULL) {
        return OMENDB_OK;
    }
    fields->names_text = failure_allocate(&session->failure, strlen(given) + 1, 1);
    fields->names = failure_allocate(&session->failure, strlen(given) + 1, sizeof *fields->names);
    if (fields->names_text == NULL || fields->names == NULL) {
        return OMENDB_NOMEM;
    }
    strcpy(fields->names_text, given);
    for (name = fields->names_text; *name != '\0';) {
        const size_t length = strcspn(name, ",");
        const bool last = name[length] == '\0';

        fields->names[fields->name_count++] = name;
        name[length] = '\0';
        name += length + !last;
    }
    return OMENDB_OK;
}

int fields_read(struct session *session, uint64_t id, struct fields *fields)
{
    size_t size = FIELDS_CAPACITY - 1;
    int code = omendb_get_key(session->collection, NULL, id, fields->key, sizeof fields->key, NULL);

    while (code == OMENDB_OK || code == OMENDB_TOOBIG) {
        if (size >= fields->capacity) {
            char *metadata = failure_resize(&session->failure, fields->metadata, size + 1, 1);

            if (metadata == NULL) {
                return OMENDB_NOMEM;
            }
            fields->metadata = metadata;
            fields->capacity = size + 1;
        }
        code = omendb_get_metadata(session->collection, NULL, id, fields->names, fields->name_count,
                                   fields->metadata, fields->capacity, &size);
        if (code == OMENDB_OK) {
            return OMENDB_OK;
        }
    }
    return session_result(session, code);
}

bool fields_have_key(const struct fields *fields)
{
    return fields->key[0] != '\0';
}

bool fields_have_metadata(const struct fields *fields)
{
    return strcmp(fields->metadata, "{}") != 0;
}

void fields_print_json(struct output_json *json, const struct fields *fields)
{
    if (fields_have_key(fields)) {
        output_text(json, "key", fields->key);
    }
    if (fields_have_metadata(fields)) {
        output_json_text(json, "metadata", fields->metadata);
    }
}

void fields_release(struct fields *fields)
{
    failure_release(fields->metadata);
    failure_release(fields->names);
    failure_release(fields->names_text);
}

#undef FIELDS_CAPACITY
