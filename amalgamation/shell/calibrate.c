/* calibrate.c: measures recall on the queries of a file, for searches by --recall.
 *
 * Invariant: the queries are held in memory as a whole, since the library wants them so; more than
 * it takes are never read. */
#include "commands.h"

#include <string.h>

#include "progress.h"

#define CALIBRATE_FIRST_ROWS 1024u

struct calibrate {
    struct session *session;
    struct reader reader;
    uint32_t vector_type;
    unsigned char *queries;
    uint64_t *ids; /* of the file, not used */
    size_t capacity;
    size_t count;
};

/* Room for `rows` queries. */
static int calibrate_grow(struct calibrate *calibrate, size_t rows)
{
    struct failure *failure = &calibrate->session->failure;
    const size_t bytes = reader_vector_bytes(&calibrate->reader);
    void *queries = failure_resize(failure, calibrate->queries, rows, bytes);
    void *ids = queries != NULL
                    ? failure_resize(failure, calibrate->ids, rows, sizeof *calibrate->ids)
                    : NULL;

    calibrate->queries = queries != NULL ? queries : calibrate->queries;
    calibrate->ids = ids != NULL ? ids : calibrate->ids;
    calibrate->capacity = ids != NULL ? rows : calibrate->capacity;
    return failure->code;
}

static int calibrate_read(struct calibrate *calibrate)
{
    const struct arguments *arguments = &calibrate->session->arguments;
    const size_t bytes = reader_vector_bytes(&calibrate->reader);
    const size_t most = arguments->limit_given && arguments->limit <= OMENDB_CALIBRATE_MAX
                            ? (size_t)arguments->limit
                            : OMENDB_CALIBRATE_MAX + 1u; /* which the library refuses */
    size_t got = 1;
    int code = OMENDB_OK;

    while (code == OMENDB_OK && got != 0 && calibrate->count < most) {
        size_t rows = calibrate->count == 0 ? CALIBRATE_FIRST_ROWS : 2 * calibrate->count;

        rows = rows < most ? rows : most;
        code = calibrate_grow(calibrate, rows);
        if (code == OMENDB_OK) {
            code = reader_next(&calibrate->reader, rows - calibrate->count,
                               calibrate->ids + calibrate->count,
                               calibrate->queries + calibrate->count * bytes, NULL, &got);
            calibrate->count += got;
        }
    }
    return code;
}

static int calibrate_measure(struct calibrate *calibrate)
{
    struct session *session = calibrate->session;
    struct progress progress;
    int code;

    session_catch_interrupt();
    progress_begin(&progress, "calibrating", "steps");
    code = omendb_calibrate(session->collection, calibrate->queries, calibrate->count,
                            (int)calibrate->vector_type, command_progress, &progress);
    progress_end(&progress);
    if (code == OMENDB_OK && session_interrupted()) {
        return failure_set(&session->failure, OMENDB_BUSY,
                           "interrupted; what was measured before stays in force");
    }
    return session_result(session, code);
}

static void calibrate_print(struct calibrate *calibrate, const omendb_collection_stats *stats,
                            uint64_t us)
{
    struct session *session = calibrate->session;
    char count[OUTPUT_TEXT_BYTES], time[OUTPUT_TEXT_BYTES], recall[OUTPUT_FLOAT_BYTES];

    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_text(&session->json, "collection", session->name);
        output_whole(&session->json, "queries", calibrate->count);
        output_float(&session->json, "recall", stats->recall);
        output_whole(&session->json, "time_us", us);
        output_close(&session->json, '}');
        return;
    }
    fprintf(session->json.file, "calibrated %s with %s queries in %s: ", session->name,
            output_format_count(calibrate->count, count), output_format_time(us, time));
    if (stats->recall > 0) {
        fprintf(session->json.file, "ef %lu finds %s of the 10 nearest\n",
                (unsigned long)session->schema.ef, output_format_float(stats->recall, recall));
    } else {
        fputs("every search compares all records, which finds all\n", session->json.file);
    }
}

static int calibrate_run(struct calibrate *calibrate)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    const uint64_t start_us = progress_now_us();
    struct session *session = calibrate->session;
    int code = session_open(session, SESSION_WRITE);

    if (code == OMENDB_OK) {
        code = session_open_collection(session);
    }
    if (code == OMENDB_OK) {
        code = command_check_rows(session, &calibrate->reader, &calibrate->vector_type);
    }
    if (code == OMENDB_OK) {
        code = calibrate_measure(calibrate);
    }
    if (code == OMENDB_OK) {
        code = session_result(session, omendb_collection_get_stats(session->collection, &stats));
    }
    if (code == OMENDB_OK) {
        code = session_close(session);
    }
    if (code == OMENDB_OK) {
        calibrate_print(calibrate, &stats, progress_now_us() - start_us);
    }
    return code;
}

int command_calibrate(struct session *session)
{
    const struct arguments *arguments = &session->arguments;
    struct calibrate calibrate = {.session = session};
    int code =
        reader_open(&calibrate.reader, arguments->words[0], arguments->format, &session->failure);

    if (code == OMENDB_OK && arguments->skip != 0) {
        code = reader_skip(&calibrate.reader, arguments->skip);
    }
    if (code == OMENDB_OK) {
        code = calibrate_read(&calibrate);
    }
    if (code == OMENDB_OK) {
        code = calibrate_run(&calibrate);
    }
    failure_release(calibrate.queries);
    failure_release(calibrate.ids);
    reader_close(&calibrate.reader);
    return code;
}

#undef CALIBRATE_FIRST_ROWS
