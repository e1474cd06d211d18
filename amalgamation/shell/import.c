/* import.c: from a file into a collection.
 *
 * Invariant: memory is one batch of rows, at most 16 MiB of vectors unless --batch says otherwise,
 * and as much of keys and metadata and a row more, however long the file is. Every batch is one
 * commit: when an import stops, for whatever reason, exactly the rows that the message counts are
 * stored, and --skip with that number goes on behind them. Where that is none, nothing that the
 * import made is left: a collection is dropped again, and a database is made only once the first
 * batch has gone into one in memory.
 *
 * The file is opened and its first batch read before the database is. A new collection
 * takes its element type from the file (f64 and text: f32) unless --type says otherwise; for one
 * that exists every option that was given is compared with it, since it would have no effect.
 *
 * The graph is built while rows arrive, so that the time shown is the whole time; --optimize merges
 * what has come about into one segment at the end. */
#include "commands.h"

#include <string.h>

#include "clamp.h"
#include "progress.h"

#define IMPORT_BATCH_ROWS  10000u
#define IMPORT_BATCH_BYTES (16u << 20)
#define IMPORT_BYTES_MAX   (1u << 30) /* of omendb_add_batch */
#define IMPORT_TAIL_BYTES  (8u << 20) /* the default of tail_limit: about 1 ms of a search */

struct import {
    struct session *session;
    struct reader reader;
    struct reader id_reader; /* with --ids */
    struct progress progress;
    int vector_type; /* of the rows, as the library is told */
    size_t batch;
    uint64_t *ids;
    void *vectors;
    struct reader_texts *texts;
    omendb_record *records; /* NULL until a batch has keys or metadata */
    size_t count;           /* rows in `vectors`, to be stored next */
    bool created;           /* the collection */
    uint64_t stored;        /* rows */
    uint64_t clamped;       /* elements */
};

/* Schema */

static int import_compare(struct session *session, const char *option, const char *stored,
                          const char *given)
{
    if (strcmp(stored, given) == 0) {
        return OMENDB_OK;
    }
    return failure_set(&session->failure, OMENDB_MISMATCH,
                       "collection %s has %s %s, not %s; leave the option out, or add "
                       "--collection with a new name",
                       session->name, option, stored, given);
}

static int import_compare_whole(struct session *session, const char *option, uint64_t stored,
                                uint64_t given)
{
    if (given == 0 || stored == given) {
        return OMENDB_OK;
    }
    return failure_set(&session->failure, OMENDB_MISMATCH,
                       "collection %s has %s %llu, not %llu; leave the option out, or add "
                       "--collection with a new name",
                       session->name, option, (unsigned long long)stored,
                       (unsigned long long)given);
}

static int import_check_schema(struct session *session, const struct reader *reader)
{
    const struct arguments *arguments = &session->arguments;
    const omendb_schema *schema = &session->schema;
    const uint32_t elements = arguments->packed ? (schema->dim + 7) / 8 : schema->dim;

    if (elements != reader->dim) {
        return failure_set(&session->failure, OMENDB_MISMATCH,
                           "%s: rows of %lu elements, but collection %s holds vectors of %lu; add "
                           "--collection with a new name",
                           reader->path, (unsigned long)reader->dim, session->name,
                           (unsigned long)schema->dim);
    }
    if (arguments->metric >= 0) {
        import_compare(session, "--metric", omendb_metric_name((int)schema->metric),
                       omendb_metric_name(arguments->metric));
    }
    if (arguments->scalar >= 0) {
        import_compare(session, "--type", omendb_scalar_name((int)schema->scalar),
                       omendb_scalar_name(arguments->scalar));
    }
    if (arguments->scale > 0 && arguments->scale != schema->scale) {
        return failure_set(&session->failure, OMENDB_MISMATCH, "collection %s has --scale %g",
                           session->name, (double)schema->scale);
    }
    import_compare_whole(session, "--m", schema->M, arguments->M);
    import_compare_whole(session, "--ef-construction", schema->ef_construction,
                         arguments->ef_construction);
    return session->failure.code;
}

/* Whether the rows are bits, given as such or wanted as such. */
static bool import_wants_bits(const struct arguments *arguments)
{
    return arguments->packed || arguments->metric == OMENDB_HAMMING ||
           arguments->scalar == OMENDB_B1;
}

void command_fill_schema(const struct arguments *arguments, uint32_t dim, uint32_t scalar,
                         omendb_schema *schema)
{
    const bool bits = import_wants_bits(arguments);

    omendb_schema_init(schema);
    schema->dim = dim;
    schema->metric = bits ? OMENDB_HAMMING : OMENDB_L2;
    schema->scalar = bits ? OMENDB_B1 : scalar;
    if (arguments->metric >= 0) {
        schema->metric = (uint32_t)arguments->metric;
    }
    if (arguments->scalar >= 0) {
        schema->scalar = (uint32_t)arguments->scalar;
    }
    schema->scale = arguments->scale;
    schema->M = (uint32_t)arguments->M;
    schema->ef_construction = (uint32_t)arguments->ef_construction;
    schema->ef = (uint32_t)arguments->ef;
}

static int import_create(struct session *session, const struct reader *reader)
{
    const struct arguments *arguments = &session->arguments;
    omendb_schema schema;

    if (arguments->packed && reader->dim > READER_DIM_MAX / 8) {
        return failure_set(&session->failure, OMENDB_TOOBIG, "%s: rows of %lu bytes; %u fit",
                           reader->path, (unsigned long)reader->dim, READER_DIM_MAX / 8);
    }
    command_fill_schema(arguments, arguments->packed ? 8 * reader->dim : reader->dim,
                        (uint32_t)reader->scalar, &schema);
    return session_result(session, omendb_collection_create(session->db, session->name, &schema,
                                                            &session->collection));
}

static int import_open_collection(struct import *import)
{
    struct session *session = import->session;
    int code = session_choose_collection(session, true);

    if (code != OMENDB_OK) {
        return code;
    }
    code = omendb_collection_open(session->db, session->name, NULL, &session->collection);
    if (code == OMENDB_NOTFOUND) {
        code = import_create(session, &import->reader);
        import->created = code == OMENDB_OK;
    } else {
        session_result(session, code);
    }
    if (code == OMENDB_OK) {
        omendb_schema_init(&session->schema);
        code = session_result(session,
                              omendb_collection_schema(session->collection, &session->schema));
    }
    return code == OMENDB_OK ? import_check_schema(session, &import->reader) : code;
}

/* Batches */

static bool import_has_ids(const struct import *import)
{
    const struct arguments *arguments = &import->session->arguments;

    return import->reader.has_ids || arguments->ids_from_given || arguments->ids != NULL;
}

static int import_check_arguments(struct import *import)
{
    const struct arguments *arguments = &import->session->arguments;
    struct failure *failure = &import->session->failure;
    const size_t bytes = reader_vector_bytes(&import->reader);

    if (arguments->put && !import_has_ids(import) &&
        import->reader.row_texts.key == READER_NO_TEXT) {
        return failure_set(failure, FAILURE_USAGE,
                           "--put replaces records by id or by key, but the file has neither; add "
                           "--ids or --ids-from");
    }
    if (arguments->packed && import->reader.scalar != OMENDB_U8) {
        return failure_set(failure, FAILURE_USAGE,
                           "--packed: rows of bytes are expected (npy of u1, bvecs, u8bin)");
    }
    import->vector_type = arguments->packed ? OMENDB_B1 : (int)import->reader.scalar;
    import->batch = arguments->batch != 0 ? (size_t)arguments->batch : IMPORT_BATCH_BYTES / bytes;
    if (arguments->batch == 0 && import->batch > IMPORT_BATCH_ROWS) {
        import->batch = IMPORT_BATCH_ROWS;
    }
    if (import->batch > IMPORT_BYTES_MAX / bytes) {
        return failure_set(failure, FAILURE_USAGE,
                           "--batch: a batch may have 1 GiB, %llu rows here",
                           (unsigned long long)(IMPORT_BYTES_MAX / bytes));
    }
    import->ids = failure_allocate(failure, import->batch, sizeof *import->ids);
    import->vectors = failure_allocate(failure, import->batch, bytes);
    import->texts = failure_allocate(failure, import->batch, sizeof *import->texts);
    return failure->code;
}

/* 0 to 1, or below 0 when nobody knows. */
static double import_fraction(const struct import *import)
{
    const struct arguments *arguments = &import->session->arguments;
    const struct reader *reader = &import->reader;
    uint64_t total;

    if (reader->rows == READER_ROWS_UNKNOWN) {
        return reader->file_bytes != 0 ? (double)reader->read_bytes / (double)reader->file_bytes
                                       : -1;
    }
    total = reader->rows - arguments->skip;
    if (arguments->limit_given && arguments->limit < total) {
        total = arguments->limit;
    }
    return total != 0 ? (double)import->stored / (double)total : -1;
}

static int import_number(struct import *import, size_t count)
{
    const struct arguments *arguments = &import->session->arguments;
    size_t i;

    if (!arguments->ids_from_given) {
        return OMENDB_OK;
    }
    if (count > OMENDB_ID_AUTO - arguments->ids_from ||
        import->stored > OMENDB_ID_AUTO - arguments->ids_from - count) {
        return failure_set(&import->session->failure, OMENDB_INVALID,
                           "--ids-from: the ids go past the largest one");
    }
    for (i = 0; i < count; i++) {
        import->ids[i] = arguments->ids_from + import->stored + i;
    }
    return OMENDB_OK;
}

/* The ids of the rows that were read, from the file of --ids. */
static int import_read_ids(struct import *import)
{
    struct reader *reader = &import->id_reader;
    size_t count = 0;
    int code = reader_next(reader, import->count, import->ids, import->vectors, NULL, &count);

    if (code == OMENDB_OK && count < import->count) {
        code = failure_set(&import->session->failure, OMENDB_INVALID,
                           "%s: has only %llu ids, %s has more rows", reader->path,
                           (unsigned long long)reader->next_row, import->reader.path);
    }
    return code;
}

/* Reads the next batch; import->count of 0 is the end. */
static int import_read(struct import *import)
{
    const struct arguments *arguments = &import->session->arguments;
    size_t wanted = import->batch;
    int code;

    if (arguments->limit_given && arguments->limit - import->stored < wanted) {
        wanted = (size_t)(arguments->limit - import->stored);
    }
    code = reader_next(&import->reader, wanted, import->ids, import->vectors, import->texts,
                       &import->count);
    if (code == OMENDB_OK && arguments->ids != NULL) {
        code = import_read_ids(import);
    }
    if (session_interrupted() && (code == OMENDB_IOERR || import->count != 0)) {
        failure_clear(&import->session->failure); /* a read that the signal broke off */
        return failure_set(&import->session->failure, OMENDB_BUSY, "interrupted");
    }
    return code == OMENDB_OK ? import_number(import, import->count) : code;
}

static int import_store_vectors(struct import *import)
{
    struct session *session = import->session;
    const uint64_t *ids = import_has_ids(import) ? import->ids : NULL;

    return session_result(session,
                          session->arguments.put
                              ? omendb_put_batch(session->collection, NULL, import->count, ids,
                                                 import->vectors, import->vector_type, NULL)
                              : omendb_add_batch(session->collection, NULL, import->count, ids,
                                                 import->vectors, import->vector_type, NULL));
}

static const char *import_text(const struct import *import, size_t at)
{
    return at != READER_NO_TEXT ? import->reader.texts + at : NULL;
}

/* Rows of which some have a key or metadata. */
static int import_store_records(struct import *import)
{
    struct session *session = import->session;
    const size_t bytes = reader_vector_bytes(&import->reader);
    size_t i;

    if (import->records == NULL) {
        import->records =
            failure_allocate(&session->failure, import->batch, sizeof *import->records);
    }
    if (import->records == NULL) {
        return OMENDB_NOMEM;
    }
    for (i = 0; i < import->count; i++) {
        omendb_record *record = &import->records[i];

        omendb_record_init(record);
        record->id = import_has_ids(import) ? import->ids[i] : OMENDB_ID_AUTO;
        record->vector = (const unsigned char *)import->vectors + i * bytes;
        record->vector_type = (uint32_t)import->vector_type;
        record->key = import_text(import, import->texts[i].key);
        record->metadata = import_text(import, import->texts[i].metadata);
        if (session->arguments.put && record->id == OMENDB_ID_AUTO && record->key == NULL) {
            return failure_set(&session->failure, OMENDB_INVALID,
                               "--put needs an id or a key in each row: row %llu has none",
                               (unsigned long long)(session->arguments.skip + import->stored + i));
        }
    }
    return session_result(
        session,
        session->arguments.put
            ? omendb_put_records(session->collection, NULL, import->count, import->records, NULL)
            : omendb_add_records(session->collection, NULL, import->count, import->records, NULL));
}

static int import_store(struct import *import)
{
    struct session *session = import->session;
    const uint64_t first = session->arguments.skip + import->stored;
    const size_t count = import->count;
    const bool by_key = session->arguments.put && !import_has_ids(import);
    int code = import->reader.text_bytes != 0 || by_key ? import_store_records(import)
                                                        : import_store_vectors(import);

    if (code == OMENDB_OK) {
        return OMENDB_OK;
    }
    failure_prefix(&session->failure, "%s: in rows %llu to %llu: ", import->reader.path,
                   (unsigned long long)first, (unsigned long long)(first + count - 1));
    if (code == OMENDB_EXISTS) {
        failure_suffix(&session->failure, "; --put replaces records, --ids-from numbers anew");
    }
    return code;
}

/* The batch into a collection in memory, for session_open_or_create. */
static int import_rehearse(void *context)
{
    struct import *import = context;
    int code = import_open_collection(import);

    import->created = false;
    return code == OMENDB_OK && import->count != 0 ? import_store(import) : code;
}

/* Adds to a failure how far the import came. */
static void import_count_stored(struct import *import)
{
    struct failure *failure = &import->session->failure;
    char text[OUTPUT_TEXT_BYTES];

    if (import->stored == 0) {
        failure_suffix(failure, ". Nothing was stored");
    } else {
        failure_suffix(failure, ". %s row%s stored; --skip %llu goes on behind them",
                       output_format_count(import->stored, text),
                       import->stored == 1 ? " was" : "s were",
                       (unsigned long long)(import->session->arguments.skip + import->stored));
    }
}

/* Stores what was read, and the rest of the file. */
static int import_rows(struct import *import)
{
    const size_t dim = import->session->schema.dim;
    int code = OMENDB_OK;

    while (code == OMENDB_OK && import->count != 0) {
        code = import_store(import);
        if (code == OMENDB_OK) {
            import->clamped += clamp_count(&import->session->schema, import->vector_type,
                                           import->vectors, import->count * dim);
            import->stored += import->count;
            progress_update(&import->progress, import->stored, import_fraction(import));
            code = import_read(import);
        }
    }
    return code;
}

/* Drops the collection again that the import made and put nothing into. */
static void import_take_back(struct import *import)
{
    struct session *session = import->session;

    omendb_collection_close(session->collection);
    session->collection = NULL;
    if (omendb_collection_drop(session->db, session->name) != OMENDB_OK) {
        failure_suffix(&session->failure, "; but an empty collection %s is left: %s", session->name,
                       omendb_errmsg());
    }
}

/* Result */

static void import_print(const struct import *import, uint64_t us,
                         const omendb_collection_stats *stats)
{
    struct session *session = import->session;
    const uint64_t stored = import->stored;
    const double rate = us != 0 ? (double)stored * 1e6 / (double)us : 0;
    char count[OUTPUT_TEXT_BYTES], time[OUTPUT_TEXT_BYTES], speed[OUTPUT_TEXT_BYTES];

    if (session->arguments.json) {
        output_open(&session->json, NULL, '{');
        output_text(&session->json, "collection", session->name);
        output_whole(&session->json, "imported", stored);
        output_whole(&session->json, "records", stats->records);
        output_whole(&session->json, "clamped", import->clamped);
        output_whole(&session->json, "time_us", us);
        output_close(&session->json, '}');
        return;
    }
    fprintf(session->json.file, "imported %s row%s of %lu x %s into %s in %s (%s rows/s)\n",
            output_format_count(stored, count), stored == 1 ? "" : "s",
            (unsigned long)session->schema.dim, omendb_scalar_name((int)session->schema.scalar),
            session->name, output_format_time(us, time),
            output_format_count((uint64_t)rate, speed));
    if (stats->unindexed_rows > IMPORT_TAIL_BYTES / session->schema.dim) {
        fprintf(session->json.file,
                "%s rows are searched one by one until `omendb %s optimize` has run\n",
                output_format_count(stats->unindexed_rows, count), session->arguments.database);
    }
    clamp_warn(session, import->clamped, stored * session->schema.dim);
}

static int import_check_id_count(struct import *import)
{
    const uint64_t ids = import->id_reader.rows, rows = import->reader.rows;

    if (ids == READER_ROWS_UNKNOWN || rows == READER_ROWS_UNKNOWN || ids == rows) {
        return OMENDB_OK;
    }
    return failure_set(&import->session->failure, OMENDB_INVALID, "%s has %llu ids, %s %llu rows",
                       import->id_reader.path, (unsigned long long)ids, import->reader.path,
                       (unsigned long long)rows);
}

/* Opens the files and reads the first batch. */
static int import_open_files(struct import *import)
{
    const struct arguments *arguments = &import->session->arguments;
    struct failure *failure = &import->session->failure;
    int code;

    if (arguments->ids != NULL && arguments->ids_from_given) {
        return failure_set(failure, FAILURE_USAGE, "--ids or --ids-from, not both");
    }
    code = reader_open(&import->reader, arguments->words[0], arguments->format, failure);

    if (code == OMENDB_OK && arguments->ids != NULL) {
        code = reader_open_ids(&import->id_reader, arguments->ids, failure);
        code = code == OMENDB_OK ? import_check_id_count(import) : code;
    }
    if (code == OMENDB_OK) {
        code = import_check_arguments(import);
    }
    session_catch_interrupt();
    if (code == OMENDB_OK && arguments->skip != 0) {
        code = reader_skip(&import->reader, arguments->skip);
        code = code == OMENDB_OK && arguments->ids != NULL
                   ? reader_skip(&import->id_reader, arguments->skip)
                   : code;
    }
    return code == OMENDB_OK ? import_read(import) : code;
}

static int import_run(struct import *import)
{
    struct session *session = import->session;
    int code = session_open_or_create(session, import_rehearse, import);

    if (code == OMENDB_OK) {
        code = import_open_collection(import);
    }
    if (code == OMENDB_OK) {
        progress_begin(&import->progress, "importing", "rows");
        code = import_rows(import);
        progress_end(&import->progress);
    }
    if (code != OMENDB_OK && import->created && import->stored == 0) {
        import_take_back(import);
    }
    return code;
}

int command_import(struct session *session)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    const uint64_t start_us = progress_now_us();
    struct import import = {0};
    int code;

    import.session = session;
    code = import_open_files(&import);
    if (code == OMENDB_OK) {
        code = import_run(&import);
    }
    if (code != OMENDB_OK && code != FAILURE_USAGE) {
        import_count_stored(&import);
    }
    if (code == OMENDB_OK && session->arguments.optimize) {
        code = command_run_optimize(session);
    }
    if (code == OMENDB_OK) {
        code = session_result(session, omendb_collection_get_stats(session->collection, &stats));
    }
    if (code == OMENDB_OK) {
        code = session_close(session);
    }
    if (code == OMENDB_OK) {
        import_print(&import, progress_now_us() - start_us, &stats);
    }
    failure_release(import.ids);
    failure_release(import.vectors);
    failure_release(import.texts);
    failure_release(import.records);
    reader_close(&import.reader);
    reader_close(&import.id_reader);
    return code;
}

#undef IMPORT_BATCH_ROWS
#undef IMPORT_BATCH_BYTES
#undef IMPORT_BYTES_MAX
#undef IMPORT_TAIL_BYTES
