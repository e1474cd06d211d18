/* commands.h: what the shell can do. Each works on a session whose arguments are set, prints its
 * result, and returns OMENDB_OK or sets session->failure. The caller closes the session. */
#ifndef OMENDB_SHELL_COMMANDS_H
#define OMENDB_SHELL_COMMANDS_H

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
int command_check(struct session *session);
int command_backup(struct session *session);

/* Runs omendb_optimize with a progress bar. Also for import --optimize. */
int command_run_optimize(struct session *session);

/* Parses `count` ids of the command line into a new array; NULL sets the failure. */
uint64_t *command_parse_ids(struct session *session);

#endif
