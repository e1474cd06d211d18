/* export.c: a collection as a file that `import` reads back: csv, jsonl or npy, the standard output
 * too.
 *
 * Invariant: the rows are those of one moment (a read-only database stands still), in the order of
 * ids, and every float reads back exactly. A file that could not be finished is removed, and a file
 * that is there is never written over.
 *
 * A .npy has no place for ids: --ids writes them to a second one. Its header has the number of rows
 * and comes first, so that the standard output serves, too; that it was kept is checked at the end.
 */
#include "commands.h"

#include <errno.h>
#include <string.h>

#include "fields.h"
#include "progress.h"

enum export_format { EXPORT_CSV, EXPORT_JSONL, EXPORT_NPY };

struct export_file {
    const char *path;
    FILE *file;   /* NULL: not open */
    bool created; /* and to be removed where the export fails */
};

struct exporter {
    struct session *session;
    struct export_file rows;
    struct export_file ids; /* with --ids */
    enum export_format format;
    float *vector;
    struct fields fields; /* for jsonl */
    uint64_t total;       /* rows to be written */
    uint64_t written;
    bool numbered; /* every id so far is the number of its row */
};

static int export_fail(struct exporter *exporter, const struct export_file *file, const char *what)
{
    const int reason = errno;
    const int code = reason == EEXIST   ? OMENDB_EXISTS
                     : reason == EACCES ? OMENDB_PERMISSION
                     : reason == ENOSPC ? OMENDB_FULL
                                        : OMENDB_IOERR;

    return failure_set(&exporter->session->failure, code, "%s: %s: %s", file->path, what,
                       strerror(reason));
}

static int export_choose_format(struct exporter *exporter)
{
    static const char *const names[] = {"csv", "jsonl", "npy"};
    const struct arguments *arguments = &exporter->session->arguments;
    const char *end = strrchr(exporter->rows.path, '.');
    const char *name = arguments->format != NULL ? arguments->format : end != NULL ? end + 1 : "";
    size_t i;

    for (i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            exporter->format = (enum export_format)i;
            break;
        }
    }
    if (i == sizeof names / sizeof *names) {
        return failure_set(&exporter->session->failure, OMENDB_INVALID,
                           "%s: exported are csv, jsonl and npy; name the file so, or add --format",
                           exporter->rows.path);
    }
    if (arguments->ids != NULL && exporter->format != EXPORT_NPY) {
        return failure_set(&exporter->session->failure, FAILURE_USAGE,
                           "--ids goes with npy; csv and jsonl have the ids in them");
    }
    return OMENDB_OK;
}

/* Version 1 of the format: the header ends on a multiple of 64 bytes. dim 0: one dimension. */
static void export_npy_header(FILE *file, const char *descr, uint64_t rows, uint32_t dim)
{
    char header[128], shape[48];
    size_t length;

    snprintf(shape, sizeof shape, dim != 0 ? "(%llu, %lu)" : "(%llu,)", (unsigned long long)rows,
             (unsigned long)dim);
    snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr,
             shape);
    length = strlen(header);
    memset(header + length, ' ', sizeof header - length);
    header[117] = '\n'; /* 10 bytes in front of it make 128 */
    fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, file);
    fwrite(header, 1, 118, file);
}

static void export_csv_titles(struct exporter *exporter)
{
    uint32_t i;

    fputs("id", exporter->rows.file);
    for (i = 0; i < exporter->session->schema.dim; i++) {
        fprintf(exporter->rows.file, ",v%lu", (unsigned long)i);
    }
    putc('\n', exporter->rows.file);
}

static void export_titles(struct exporter *exporter)
{
    if (exporter->format == EXPORT_CSV) {
        export_csv_titles(exporter);
    } else if (exporter->format == EXPORT_NPY) {
        export_npy_header(exporter->rows.file, "<f4", exporter->total,
                          exporter->session->schema.dim);
    }
    if (exporter->ids.file != NULL) {
        export_npy_header(exporter->ids.file, "<u8", exporter->total, 0);
    }
}

static void export_csv_row(struct exporter *exporter, uint64_t id)
{
    FILE *file = exporter->rows.file;
    char text[OUTPUT_FLOAT_BYTES];
    uint32_t i;

    fprintf(file, "%llu", (unsigned long long)id);
    for (i = 0; i < exporter->session->schema.dim; i++) {
        putc(',', file);
        fputs(output_format_float(exporter->vector[i], text), file);
    }
    putc('\n', file);
}

static void export_row(struct exporter *exporter, uint64_t id)
{
    const uint32_t dim = exporter->session->schema.dim;
    struct output_json json = {0};

    switch (exporter->format) {
    case EXPORT_CSV:
        export_csv_row(exporter, id);
        break;
    case EXPORT_JSONL:
        json.file = exporter->rows.file;
        output_open(&json, NULL, '{');
        output_whole(&json, "id", id);
        output_vector(&json, "vector", exporter->vector, dim);
        fields_print_json(&json, &exporter->fields);
        output_close(&json, '}');
        break;
    case EXPORT_NPY:
        fwrite(exporter->vector, sizeof *exporter->vector, dim, exporter->rows.file);
        break;
    }
    if (exporter->ids.file != NULL) {
        fwrite(&id, sizeof id, 1, exporter->ids.file);
    }
    exporter->numbered = exporter->numbered && id == exporter->written;
}

static bool export_has_failed(const struct exporter *exporter)
{
    return ferror(exporter->rows.file) ||
           (exporter->ids.file != NULL && ferror(exporter->ids.file));
}

static int export_rows(struct exporter *exporter, omendb_rows *rows)
{
    struct progress progress;
    uint64_t id;
    int code = OMENDB_OK;

    progress_begin(&progress, "exporting", "rows");
    while (exporter->written < exporter->total && !session_interrupted()) {
        code = omendb_rows_next(rows, &id, OMENDB_F32, exporter->vector);
        if (code == OMENDB_OK && exporter->format == EXPORT_JSONL) {
            code = fields_read(exporter->session, id, &exporter->fields);
        }
        if (code != OMENDB_OK || export_has_failed(exporter)) {
            break;
        }
        export_row(exporter, id);
        exporter->written++;
        progress_update(&progress, exporter->written,
                        (double)exporter->written / (double)exporter->total);
    }
    progress_end(&progress);
    if (session_interrupted()) {
        return failure_set(&exporter->session->failure, OMENDB_BUSY, "interrupted");
    }
    if (code == OMENDB_DONE) {
        return failure_set(
            &exporter->session->failure, OMENDB_CORRUPT,
            "there are %llu records, %llu were counted; `omendb %s check` tells more",
            (unsigned long long)exporter->written, (unsigned long long)exporter->total,
            exporter->session->arguments.database);
    }
    return session_result(exporter->session, code);
}

static int export_collection(struct exporter *exporter)
{
    struct session *session = exporter->session;
    const struct arguments *arguments = &session->arguments;
    omendb_rows *rows = NULL;
    int code = session_compile_filter(session);

    if (code == OMENDB_OK) {
        code = session_result(session,
                              omendb_count_matching(session->collection, NULL, session->filter,
                                                    NULL, NULL, &exporter->total));
    }
    if (arguments->limit_given && arguments->limit < exporter->total) {
        exporter->total = arguments->limit;
    }
    if (code == OMENDB_OK) {
        code =
            session_result(session, omendb_scan_matching(session->collection, NULL, session->filter,
                                                         0, OMENDB_ID_AUTO - 1, &rows));
    }
    if (code == OMENDB_OK) {
        export_titles(exporter);
        code = export_rows(exporter, rows);
    }
    omendb_rows_close(rows);
    return code;
}

/* "-" is the standard output. */
static int export_create(struct exporter *exporter, struct export_file *file)
{
    const bool standard = strcmp(file->path, "-") == 0;

    file->file = standard ? stdout : fopen(file->path, "wbx");
    file->created = file->file != NULL && !standard;
    return file->file != NULL ? OMENDB_OK : export_fail(exporter, file, "cannot be created");
}

/* Writes out what stdio holds. Returns `code`, or why that failed. */
static int export_finish(struct exporter *exporter, struct export_file *file, int code)
{
    if (file->file == NULL) {
        return code;
    }
    if (ferror(file->file) || (file->created ? fclose(file->file) : fflush(file->file)) != 0) {
        code = export_fail(exporter, file, "cannot be written");
    }
    return code;
}

/* Takes an unfinished file away. */
static void export_remove(const struct export_file *file)
{
    if (file->created) {
        remove(file->path);
    }
}

static int export_to_files(struct exporter *exporter)
{
    struct session *session = exporter->session;
    int code = export_create(exporter, &exporter->rows);

    if (code == OMENDB_OK && exporter->ids.path != NULL) {
        code = export_create(exporter, &exporter->ids);
    }
    if (code == OMENDB_OK) {
        exporter->vector =
            failure_allocate(&session->failure, session->schema.dim, sizeof *exporter->vector);
        session_catch_interrupt();
        code = exporter->vector != NULL ? export_collection(exporter) : OMENDB_NOMEM;
    }
    code = export_finish(exporter, &exporter->rows, code);
    code = export_finish(exporter, &exporter->ids, code);
    if (code != OMENDB_OK) {
        export_remove(&exporter->rows);
        export_remove(&exporter->ids);
    }
    return code;
}

static void export_print(const struct exporter *exporter, uint64_t us)
{
    struct session *session = exporter->session;
    const bool ids_are_lost =
        exporter->format == EXPORT_NPY && exporter->ids.path == NULL && !exporter->numbered;
    char count[OUTPUT_TEXT_BYTES], time[OUTPUT_TEXT_BYTES];

    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_whole(&session->json, "exported", exporter->written);
        output_boolean(&session->json, "has_ids", !ids_are_lost);
        output_close(&session->json, '}');
        return;
    }
    fprintf(session->json.file, "exported %s rows to %s in %s\n",
            output_format_count(exporter->written, count), exporter->rows.path,
            output_format_time(us, time));
    if (ids_are_lost) {
        fputs("the ids are not in it; --ids FILE.npy writes them\n", session->json.file);
    }
}

int command_export(struct session *session)
{
    struct exporter exporter = {.session = session, .numbered = true};
    const uint64_t start_us = progress_now_us();
    int code;

    exporter.rows.path = session->arguments.words[0];
    exporter.ids.path = session->arguments.ids;
    code = export_choose_format(&exporter);
    if (code == OMENDB_OK && exporter.ids.path != NULL && strcmp(exporter.ids.path, "-") == 0) {
        code = failure_set(&session->failure, FAILURE_USAGE, "--ids: needs a file");
    }
    if (code == OMENDB_OK) {
        code = session_open(session, SESSION_READ);
    }
    if (code == OMENDB_OK) {
        code = session_open_collection(session);
    }
    if (code == OMENDB_OK) {
        code = export_to_files(&exporter);
    }
    fields_release(&exporter.fields);
    failure_release(exporter.vector);
    if (code == OMENDB_OK && exporter.rows.created) {
        export_print(&exporter, progress_now_us() - start_us);
    }
    return code;
}
