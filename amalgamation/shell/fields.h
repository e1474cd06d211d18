/* fields.h: what a record carries beside its vector: its key and its metadata, as texts. */
#ifndef OMENDB_SHELL_FIELDS_H
#define OMENDB_SHELL_FIELDS_H

#include "session.h"

struct fields {
    char key[OMENDB_KEY_MAX + 1]; /* "": none */
    char *metadata;               /* a JSON object; "{}": none */
    size_t capacity;
    const char **names; /* of the fields of the metadata that are read; NULL: all */
    size_t name_count;
    char *names_text; /* where they point to */
};

/* Has only the fields of --fields read, where that is given. */
int fields_choose(struct session *session, struct fields *fields);

/* Reads those of a record of the session's collection. A zeroed `fields` is ready for it, and can
 * be used again for the next record. */
int fields_read(struct session *session, uint64_t id, struct fields *fields);

bool fields_have_key(const struct fields *fields);
bool fields_have_metadata(const struct fields *fields);

/* As members of the object that is open, where there are some. */
void fields_print_json(struct output_json *json, const struct fields *fields);

/* A zeroed one is OK. */
void fields_release(struct fields *fields);

#endif
