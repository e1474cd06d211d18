/* shell.c: omendb, the command-line shell of OmenDB.
 *
 * It uses the public API only, and is a program that one may learn it from: arguments.c reads the
 * command line, help.c explains it, session.c opens and closes, commands.c, import.c, export.c,
 * search.c, facets.c, rules.c and calibrate.c do the work, readers*.c and json.c read files,
 * output.c, progress.c and clamp.c print.
 *
 * Invariant: exit status 0 means that everything asked for was done and printed, 1 that something
 * failed, 2 that the command line was not understood and nothing was done. The reason is printed
 * once: to the standard error, or with --json to the standard output as {"error": ..., "code":
 * ...}, where a script reads the result. */
#include <string.h>

#include "commands.h"

static int shell_print_version(struct session *session)
{
    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_text(&session->json, "version", omendb_version());
        output_whole(&session->json, "format_version", (uint64_t)omendb_format_version());
        output_text(&session->json, "kernels", omendb_kernels());
        output_close(&session->json, '}');
    } else {
        fprintf(session->json.file, "omendb %s (format %d, %s)\n", omendb_version(),
                omendb_format_version(), omendb_kernels());
    }
    return OMENDB_OK;
}

static int (*const shell_commands[COMMAND_COUNT])(struct session *) = {
    [COMMAND_HELP] = command_help,
    [COMMAND_VERSION] = shell_print_version,
    [COMMAND_IMPORT] = command_import,
    [COMMAND_EXPORT] = command_export,
    [COMMAND_SEARCH] = command_search,
    [COMMAND_GET] = command_get,
    [COMMAND_DELETE] = command_delete,
    [COMMAND_INFO] = command_info,
    [COMMAND_COLLECTIONS] = command_collections,
    [COMMAND_DROP] = command_drop,
    [COMMAND_OPTIMIZE] = command_optimize,
    [COMMAND_PURGE] = command_purge,
    [COMMAND_CHECK] = command_check,
    [COMMAND_BACKUP] = command_backup,
    [COMMAND_SALVAGE] = command_salvage,
    [COMMAND_COUNT_RECORDS] = command_count,
    [COMMAND_CREATE] = command_create,
    [COMMAND_PUT] = command_put,
    [COMMAND_CALIBRATE] = command_calibrate,
    [COMMAND_PREPARED] = command_prepared,
    [COMMAND_COMMIT] = command_commit,
    [COMMAND_ROLLBACK] = command_rollback,
    [COMMAND_FORGET] = command_forget,
    [COMMAND_FACETS] = command_facets,
    [COMMAND_LIMITS] = command_limits,
    [COMMAND_LIMIT] = command_limit,
    [COMMAND_FIELDS] = command_fields,
    [COMMAND_DECLARE] = command_declare,
    [COMMAND_UPDATE] = command_update,
};

static void shell_print_failure(struct session *session)
{
    const struct failure *failure = &session->failure;

    if (!session->arguments.json) {
        fprintf(stderr, "omendb: %s\n", failure->message);
    } else if (!session->reported) {
        output_open(&session->json, NULL, '{');
        output_text(&session->json, "error", failure->message);
        output_text(&session->json, "code",
                    failure->code == FAILURE_USAGE ? "usage" : omendb_strerror(failure->code));
        output_close(&session->json, '}');
    }
}

int main(int count, char **values)
{
    struct session session = {0};
    const char **words;

    session.json.file = stdout;
    words = failure_allocate(&session.failure, (size_t)count, sizeof *words);
    if (words != NULL &&
        arguments_parse(&session.arguments, count, values, words, &session.failure) == OMENDB_OK) {
        shell_commands[session.arguments.command](&session);
        session_close(&session);
    }
    if (session.failure.code == OMENDB_OK && (fflush(stdout) != 0 || ferror(stdout))) {
        failure_set(&session.failure, OMENDB_IOERR, "the standard output cannot be written");
    }
    if (session.failure.code != OMENDB_OK) {
        shell_print_failure(&session);
    }
    failure_release(words);
    return session.failure.code == OMENDB_OK ? 0 : session.failure.code == FAILURE_USAGE ? 2 : 1;
}
