/* commands.h: what the shell can do. Each works on a session whose arguments are set, prints its
 * result, and returns OMENDB_OK or sets session->failure. The caller closes the session. */
#ifndef OMENDB_SHELL_COMMANDS_H
#define OMENDB_SHELL_COMMANDS_H

#include "readers.h"
#include "session.h"

int command_import(struct session *session);
int command_export(struct session *session);
int command_search(struct session *session);
int command_get(struct session *session);
int command_delete(struct session *session);
int command_info(struct session *session);
int command_collections(struct session *session);
int command_drop(struct session *session);
int command_optimize(struct session *session);
int command_purge(struct session *session);
int command_check(struct session *session);
int command_backup(struct session *session);
int command_salvage(struct session *session);
int command_count(struct session *session);
int command_create(struct session *session);
int command_put(struct session *session);
int command_update(struct session *session);
int command_calibrate(struct session *session);
int command_prepared(struct session *session);
int command_commit(struct session *session);
int command_rollback(struct session *session);
int command_forget(struct session *session);
int command_facets(struct session *session);
int command_limits(struct session *session);
int command_limit(struct session *session);
int command_fields(struct session *session);
int command_declare(struct session *session);
int command_help(struct session *session);

/* Runs omendb_optimize with a progress bar. Also for import --optimize. */
int command_run_optimize(struct session *session);

/* For a library call that takes long: the context is a struct progress. */
int command_progress(void *context, uint64_t done, uint64_t total);

/* Sets the schema of a new collection from the options.
 *
 * dim, scalar: of what the rows are, where no option says otherwise. */
void command_fill_schema(const struct arguments *arguments, uint32_t dim, uint32_t scalar,
                         omendb_schema *schema);

/* Parses the JSON array `text` into `vector`, which has the elements of the session's collection.
 *
 * what: where the text comes from, for messages. */
int command_parse_vector(struct session *session, const char *what, const char *text,
                         float *vector);

/* The limits of a collection as an object, `limits`. */
void command_limits_json(struct output_json *json, const omendb_limits *limits);

/* Whether rows of a file can be queries in the session's collection; sets their type. */
int command_check_rows(struct session *session, const struct reader *reader, uint32_t *vector_type);

#endif
