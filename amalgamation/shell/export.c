/* export.c: a collection as text that `import` reads back: csv or jsonl, the standard output too.
 *
 * Invariant: the rows are those of one moment (a cursor sees one state), in the order of ids, and
 * every float reads back exactly. A file that could not be finished is removed, and a file that is
 * there is never written over. */
#include "commands.h"

#include <errno.h>
#include <string.h>

#include "progress.h"

struct exporter {
    struct session *session;
    FILE *file;
    const char *path;
    bool jsonl;
    float *vector;
    uint64_t written;
};

static int export_fail(struct exporter *exporter, const char *what)
{
    const int reason = errno;
    const int code = reason == EEXIST   ? OMENDB_EXISTS
                     : reason == EACCES ? OMENDB_PERMISSION
                     : reason == ENOSPC ? OMENDB_FULL
                                        : OMENDB_IOERR;

    return failure_set(&exporter->session->failure, code, "%s: %s: %s", exporter->path, what,
                       strerror(reason));
}

static int export_choose_format(struct exporter *exporter)
{
    const char *end = strrchr(exporter->path, '.');
    const char *name = exporter->session->arguments.format;

    if (name == NULL) {
        name = end != NULL ? end + 1 : "";
    }
    exporter->jsonl = strcmp(name, "jsonl") == 0;
    if (exporter->jsonl || strcmp(name, "csv") == 0) {
        return OMENDB_OK;
    }
    return failure_set(&exporter->session->failure, OMENDB_INVALID,
                       "%s: exported are csv and jsonl; name the file so, or add --format",
                       exporter->path);
}

static void export_csv_titles(struct exporter *exporter)
{
    uint32_t i;

    fputs("id", exporter->file);
    for (i = 0; i < exporter->session->schema.dim; i++) {
        fprintf(exporter->file, ",v%lu", (unsigned long)i);
    }
    putc('\n', exporter->file);
}

static void export_row(struct exporter *exporter, uint64_t id)
{
    struct output_json json = {0};
    char text[OUTPUT_FLOAT_BYTES];
    uint32_t i;

    if (exporter->jsonl) {
        json.file = exporter->file;
        output_open(&json, NULL, '{');
        output_whole(&json, "id", id);
        output_vector(&json, "vector", exporter->vector, exporter->session->schema.dim);
        output_close(&json, '}');
        return;
    }
    fprintf(exporter->file, "%llu", (unsigned long long)id);
    for (i = 0; i < exporter->session->schema.dim; i++) {
        putc(',', exporter->file);
        fputs(output_format_float(exporter->vector[i], text), exporter->file);
    }
    putc('\n', exporter->file);
}

static int export_rows(struct exporter *exporter, omendb_rows *rows, uint64_t count)
{
    const uint64_t limit =
        exporter->session->arguments.limit_given ? exporter->session->arguments.limit : UINT64_MAX;
    struct progress progress;
    uint64_t id;
    int code = OMENDB_OK;

    progress_begin(&progress, "exporting", "rows");
    while (exporter->written < limit && !session_interrupted()) {
        code = omendb_rows_next(rows, &id, OMENDB_F32, exporter->vector);
        if (code != OMENDB_OK || ferror(exporter->file)) {
            break;
        }
        export_row(exporter, id);
        exporter->written++;
        progress_update(&progress, exporter->written, (double)exporter->written / (double)count);
    }
    progress_end(&progress);
    if (session_interrupted()) {
        return failure_set(&exporter->session->failure, OMENDB_BUSY, "interrupted");
    }
    return code == OMENDB_DONE ? OMENDB_OK : session_result(exporter->session, code);
}

static int export_collection(struct exporter *exporter)
{
    struct session *session = exporter->session;
    omendb_rows *rows = NULL;
    uint64_t count = 0;
    int code = session_result(session, omendb_count(session->collection, NULL, &count));

    if (code == OMENDB_OK) {
        code = session_result(session,
                              omendb_scan(session->collection, NULL, 0, OMENDB_ID_AUTO - 1, &rows));
    }
    if (code == OMENDB_OK && !exporter->jsonl) {
        export_csv_titles(exporter);
    }
    if (code == OMENDB_OK) {
        code = export_rows(exporter, rows, count);
    }
    omendb_rows_close(rows);
    return code;
}

/* Writes out what stdio holds, and takes an unfinished file away. */
static int export_finish(struct exporter *exporter, int code)
{
    const bool standard = exporter->file == stdout;

    if (ferror(exporter->file) ||
        (standard ? fflush(exporter->file) : fclose(exporter->file)) != 0) {
        code = export_fail(exporter, "cannot be written");
    }
    if (code != OMENDB_OK && !standard) {
        remove(exporter->path);
    }
    return code;
}

static int export_to_file(struct exporter *exporter)
{
    struct session *session = exporter->session;

    if (strcmp(exporter->path, "-") == 0) {
        exporter->file = stdout;
    } else {
        exporter->file = fopen(exporter->path, "wbx");
        if (exporter->file == NULL) {
            return export_fail(exporter, "cannot be created");
        }
    }
    exporter->vector =
        failure_allocate(&session->failure, session->schema.dim, sizeof *exporter->vector);
    session_catch_interrupt();
    return export_finish(exporter,
                         exporter->vector != NULL ? export_collection(exporter) : OMENDB_NOMEM);
}

int command_export(struct session *session)
{
    struct exporter exporter = {.session = session, .path = session->arguments.words[0]};
    const uint64_t start_us = progress_now_us();
    char count[OUTPUT_TEXT_BYTES], time[OUTPUT_TEXT_BYTES];
    int code = export_choose_format(&exporter);

    if (code == OMENDB_OK) {
        code = session_open(session, SESSION_READ);
    }
    if (code == OMENDB_OK) {
        code = session_open_collection(session);
    }
    if (code == OMENDB_OK) {
        code = export_to_file(&exporter);
    }
    failure_release(exporter.vector);
    if (code != OMENDB_OK || exporter.file == stdout) {
        return code;
    }
    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_whole(&session->json, "exported", exporter.written);
        output_close(&session->json, '}');
    } else {
        fprintf(session->json.file, "exported %s rows to %s in %s\n",
                output_format_count(exporter.written, count), exporter.path,
                output_format_time(progress_now_us() - start_us, time));
    }
    return OMENDB_OK;
}
