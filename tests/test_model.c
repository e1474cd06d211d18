/* test_model.c: random operations against a flat array with versions.
 *
 * The model is a list of versions (value, first commit, last commit) for each id of each
 * collection, and nothing else; whatever the database answers is compared with a walk over that
 * list: what exists, what exists for a snapshot, for a reader that was refreshed some time ago, for
 * a cursor that was opened some time ago, what a transaction sees of itself, what is nearest. Exact
 * answers must be equal, approximate ones sorted, unique, visible, as many as asked for, with the
 * right distances, and of a recall above a floor.
 *
 * Phases: one database handed on from process to process, each with another level of kernels and
 * the other mode of reading; in memory on the file system of crash_vfs.h without threads
 * (repeatable), with two; on the real file system; and ":memory:". Each phase is cut into shards
 * with a seed each, which run side by side.
 *
 *     test_model                          about 1,000,000 operations
 *     test_model --operations N --seed S  a campaign; a failure prints its seed */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1

#include <math.h>

#include "crash_vfs.h"
#include "parallel.h"
#include "support.h"
#include "test.h"

#define MODEL_COLLECTIONS 5
#define MODEL_IDS         240
#define MODEL_SNAPSHOTS   5
#define MODEL_CURSORS     3
#define MODEL_PREPARED    3     /* names of prepared transactions */
#define MODEL_SHARD       20000 /* operations */
#define MODEL_LEG         2500  /* operations in one process of the relay */
#define MODEL_K_MAX       30
#define MODEL_NEVER       UINT64_MAX
/* Of a value: what was put, from which vector and key follow; above it what an update gave, 0: none
 */
#define MODEL_UPDATE_SHIFT 40
#define MODEL_PUT          ((UINT64_C(1) << MODEL_UPDATE_SHIFT) - 1)

struct model_kind {
    const char *name;
    uint32_t dim, metric, scalar;
    float tolerance;
};

static const struct model_kind model_kinds[MODEL_COLLECTIONS] = {
    {"squares", 12, OMENDB_L2, OMENDB_F32, 0.0f},
    {"products", 20, OMENDB_INNER_PRODUCT, OMENDB_F16, 0.0f},
    {"angles", 11, OMENDB_COSINE, OMENDB_F32, 2e-5f},
    {"bytes", 16, OMENDB_L2, OMENDB_I8, 0.0f},
    {"bits", 31, OMENDB_HAMMING, OMENDB_B1, 0.0f}};

struct model_row {
    uint64_t value, begin, end;
};

/* Versions of one record, oldest first. */
struct model_record {
    struct model_row *rows;
    size_t count, capacity;
    uint64_t changed; /* commit of the last change */
};

struct model_collection {
    struct model_record records[MODEL_IDS];
};

/* A cursor that is kept open, and what it has yet to show. */
struct model_cursor {
    omendb_rows *rows;
    int c, of_reader;
    uint64_t ids[MODEL_IDS], values[MODEL_IDS];
    size_t count, next;
};

/* Pages that are kept open: their hits in order, and which of them came. */
struct model_pages {
    omendb_pages *pages;
    int of_reader, exact, whole; /* whole: without a radius */
    float tolerance;
    uint64_t ids[MODEL_IDS];
    float distances[MODEL_IDS];
    int is_hit[MODEL_IDS]; /* and was not given yet */
    size_t count, next;
};

/* Own changes of the open writing transaction: value, 0 deleted, MODEL_NEVER untouched. */
struct model_writes {
    uint64_t value[MODEL_COLLECTIONS][MODEL_IDS];
    int undone[MODEL_COLLECTIONS]
              [MODEL_IDS]; /* added and deleted again: nothing is left to conflict */
    uint64_t snapshot;
};

/* A prepared transaction, which waits or whose outcome is remembered. */
struct model_prepared {
    int state; /* 0: there is none */
    struct model_writes writes;
};

struct model {
    struct support_random random;
    struct crash_fs *fs; /* NULL: the real one */
    char path[4096];
    int threads, in_memory;
    omendb *db;
    omendb_collection *handles[MODEL_COLLECTIONS];
    struct model_collection collections[MODEL_COLLECTIONS];
    uint64_t commit, next_value;
    omendb_txn *snapshots[MODEL_SNAPSHOTS];
    uint64_t snapshot_commits[MODEL_SNAPSHOTS];
    omendb_txn *txn;
    struct model_writes writes;
    struct model_prepared prepared[MODEL_PREPARED];
    struct model_cursor cursors[MODEL_CURSORS];
    struct model_pages pages;
    omendb *reader; /* read-only, on the same files, or NULL */
    omendb_collection *reader_handles[MODEL_COLLECTIONS];
    omendb_txn *reader_txn;
    uint64_t reader_commit;
    uint32_t io; /* the next opening, where a phase says so; else at random */
    int io_is_given;
    uint64_t approximate_wanted, approximate_found;
    uint64_t done, conflicts, commits, refused; /* refused: for a lock of a prepared one */
    int bad;
    const char *doing;
};

/* What is read: a snapshot's commit, or the newest with the writes of a transaction on top; by the
 * handles of the writer or by those of the reader beside it. */
struct model_reader {
    omendb_collection *const *handles;
    omendb_txn *txn;
    uint64_t commit;
    const struct model_writes *writes;
};

static int model_expect(struct model *model, int condition, const char *what)
{
    if (condition)
        return 1;
    if (!model->bad)
        fprintf(stderr, "operation %llu, %s: %s (%s)\n", (unsigned long long)model->done,
                model->doing, what, omendb_errmsg());
    model->bad = 1;
    return 0;
}

static int model_expect_code(struct model *model, int status, int expected)
{
    char text[160];
    snprintf(text, sizeof text, "returned \"%s\" and not \"%s\"", omendb_strerror(status),
             omendb_strerror(expected));
    return model_expect(model, status == expected, text);
}

/* ------------------------------------------------------------------------------------------------
 * the flat array */

static void model_vector(const struct model_kind *kind, uint64_t value, float *vector)
{
    support_vector(value & MODEL_PUT, kind->dim, vector);
    for (uint32_t i = 0; kind->metric == OMENDB_HAMMING && i < kind->dim; i++)
        vector[i] = vector[i] > 0.0f ? 1.0f : 0.0f;
}

struct model_document {
    char key[32], metadata[96];
};

static int model_has_documents(int c)
{
    return c % 2 == 0;
}

/* Follows from the value: some records have a key, some metadata, some both or nothing. A key is
 * given up and taken again by the record that it names. */
static void model_document(int c, uint64_t id, uint64_t given, struct model_document *document)
{
    const uint64_t value = given & MODEL_PUT, updated = given >> MODEL_UPDATE_SHIFT;
    char field[32] = "";
    memset(document, 0, sizeof *document);
    if (updated != 0)
        snprintf(field, sizeof field, "\"updated\":%llu", (unsigned long long)updated);
    if (model_has_documents(c) && value % 2 == 1)
        snprintf(document->key, sizeof document->key, "record %llu, %llu", (unsigned long long)id,
                 (unsigned long long)(value % 10));
    if (model_has_documents(c) && value % 3 != 0)
        snprintf(document->metadata, sizeof document->metadata,
                 "{\"some\":[\"%llu\"]%s%s,\"value\":%llu}", (unsigned long long)(value % 7),
                 updated != 0 ? "," : "", field, (unsigned long long)value);
    else if (updated != 0)
        snprintf(document->metadata, sizeof document->metadata, "{%s}", field);
}

/* Value of the id for this reader, 0: absent. */
static uint64_t model_read(const struct model *model, int c, uint64_t id,
                           const struct model_reader *reader)
{
    const struct model_record *record = &model->collections[c].records[id];
    if (reader->writes != NULL && reader->writes->value[c][id] != MODEL_NEVER)
        return reader->writes->value[c][id];
    for (size_t i = record->count; i-- > 0;)
        if (record->rows[i].begin <= reader->commit && record->rows[i].end > reader->commit)
            return record->rows[i].value;
    return 0;
}

static void model_apply_delete(struct model *model, int c, uint64_t id)
{
    struct model_record *record = &model->collections[c].records[id];
    if (record->count == 0 || record->rows[record->count - 1].end != MODEL_NEVER)
        return;
    record->rows[record->count - 1].end = model->commit;
    record->changed = model->commit;
}

static void model_add_row(struct model_record *record, struct model_row row)
{
    if (record->count == record->capacity) {
        record->capacity = record->capacity * 2 + 4;
        record->rows = crash_memory(record->rows, record->capacity * sizeof *record->rows);
    }
    record->rows[record->count++] = row;
}

static void model_apply_put(struct model *model, int c, uint64_t id, uint64_t value)
{
    struct model_record *record = &model->collections[c].records[id];
    model_apply_delete(model, c, id);
    model_add_row(record, (struct model_row){value, model->commit, MODEL_NEVER});
    record->changed = model->commit;
}

/* The oldest commit that somebody may read. */
static uint64_t model_oldest(const struct model *model)
{
    uint64_t oldest = model->txn != NULL ? model->writes.snapshot : model->commit;
    for (int i = 0; i < MODEL_SNAPSHOTS; i++)
        if (model->snapshots[i] != NULL && model->snapshot_commits[i] < oldest)
            oldest = model->snapshot_commits[i];
    if (model->reader != NULL && model->reader_commit < oldest)
        oldest = model->reader_commit;
    return oldest;
}

/* Rows that nobody can see any more. */
static void model_forget(struct model *model)
{
    const uint64_t oldest = model_oldest(model);
    for (int c = 0; c < MODEL_COLLECTIONS; c++)
        for (uint64_t id = 0; id < MODEL_IDS; id++) {
            struct model_record *record = &model->collections[c].records[id];
            size_t kept = 0;
            for (size_t i = 0; i < record->count; i++)
                if (record->rows[i].end > oldest)
                    record->rows[kept++] = record->rows[i];
            record->count = kept;
        }
}

/* ------------------------------------------------------------------------------------------------
 * opening */

static omendb_options model_options(struct model *model)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = model->threads;
    options.vfs = model->fs == NULL ? NULL : &model->fs->vfs;
    options.wal_limit = 64 * 1024;
    options.tail_limit = 8 * 1024;
    options.io = support_below(&model->random, 3) == 0 ? OMENDB_IO_PREAD : OMENDB_IO_MAP;
    options.io = model->io_is_given ? model->io : options.io;
    options.sync = model->fs == NULL ? OMENDB_SYNC_NORMAL : OMENDB_SYNC_FULL;
    return options;
}

static int model_open(struct model *model)
{
    const omendb_options options = model_options(model);
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    if (!model_expect_code(model, omendb_open(model->path, &options, &model->db), OMENDB_OK))
        return 0;
    for (int c = 0; c < MODEL_COLLECTIONS && !model->bad; c++) {
        schema.dim = model_kinds[c].dim;
        schema.metric = model_kinds[c].metric;
        schema.scalar = model_kinds[c].scalar;
        schema.M = 6;
        schema.ef_construction = 24;
        model_expect_code(model,
                          omendb_collection_open_or_create(model->db, model_kinds[c].name, &schema,
                                                           &model->handles[c]),
                          OMENDB_OK);
    }
    return !model->bad;
}

static void model_close_cursor(struct model_cursor *cursor)
{
    omendb_rows_close(cursor->rows);
    cursor->rows = NULL;
}

static void model_close_pages(struct model_pages *pages)
{
    omendb_pages_close(pages->pages);
    pages->pages = NULL;
}

static void model_close_reader(struct model *model)
{
    if (model->pages.of_reader)
        model_close_pages(&model->pages);
    for (int i = 0; i < MODEL_CURSORS; i++)
        if (model->cursors[i].of_reader)
            model_close_cursor(&model->cursors[i]);
    omendb_txn_rollback(model->reader_txn);
    model->reader_txn = NULL;
    for (int c = 0; c < MODEL_COLLECTIONS; c++) {
        omendb_collection_close(model->reader_handles[c]);
        model->reader_handles[c] = NULL;
    }
    const int status = omendb_close(model->reader);
    model->reader = NULL;
    model_expect_code(model, status, OMENDB_OK);
}

static void model_open_reader(struct model *model)
{
    omendb_options options = model_options(model);
    options.read_only = 1;
    options.threads = 0;
    if (!model_expect_code(model, omendb_open(model->path, &options, &model->reader), OMENDB_OK))
        return;
    for (int c = 0; c < MODEL_COLLECTIONS && !model->bad; c++)
        model_expect_code(model,
                          omendb_collection_open(model->reader, model_kinds[c].name, NULL,
                                                 &model->reader_handles[c]),
                          OMENDB_OK);
    model->reader_commit = model->commit;
}

static void model_close(struct model *model)
{
    model_close_reader(model);
    model_close_pages(&model->pages);
    for (int i = 0; i < MODEL_CURSORS; i++)
        model_close_cursor(&model->cursors[i]);
    for (int i = 0; i < MODEL_SNAPSHOTS; i++)
        omendb_txn_rollback(model->snapshots[i]);
    memset(model->snapshots, 0, sizeof model->snapshots);
    omendb_txn_rollback(model->txn);
    model->txn = NULL;
    for (int c = 0; c < MODEL_COLLECTIONS; c++) {
        omendb_collection_close(model->handles[c]);
        model->handles[c] = NULL;
    }
    const int status = omendb_close(model->db);
    model->db = NULL;
    model_expect_code(model, status, OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * reading */

static struct model_reader model_reader(struct model *model)
{
    const uint64_t dice = support_below(&model->random, 5);
    const uint64_t slot = support_below(&model->random, MODEL_SNAPSHOTS);
    struct model_reader reader = {model->handles, NULL, model->commit, NULL};
    if (dice == 0 && model->snapshots[slot] != NULL) {
        reader.txn = model->snapshots[slot];
        reader.commit = model->snapshot_commits[slot];
    } else if (dice == 1 && model->txn != NULL) {
        reader.txn = model->txn;
        reader.commit = model->writes.snapshot;
        reader.writes = &model->writes;
    } else if (dice == 2 && model->reader != NULL) {
        reader.handles = model->reader_handles;
        reader.txn = model->reader_txn;
        reader.commit = model->reader_commit;
    }
    return reader;
}

/* Reads a stored vector as f32, or for bits as bytes that are then unpacked. */
static int model_get(const struct model_reader *reader, int c, uint64_t id, float *vector)
{
    const struct model_kind *kind = &model_kinds[c];
    uint8_t bits[SUPPORT_DIM_MAX / 8];
    int status;
    if (kind->scalar != OMENDB_B1)
        return omendb_get(reader->handles[c], reader->txn, id, OMENDB_F32, vector);
    status = omendb_get(reader->handles[c], reader->txn, id, OMENDB_B1, bits);
    for (uint32_t i = 0; status == OMENDB_OK && i < kind->dim; i++)
        vector[i] = (float)((bits[i / 8] >> (i % 8)) & 1);
    return status;
}

static int model_is_close(const struct model_kind *kind, const float *a, const float *b)
{
    for (uint32_t i = 0; i < kind->dim; i++)
        if (fabsf(a[i] - b[i]) > kind->tolerance * 10.0f)
            return 0;
    return 1;
}

/* Key and metadata are those of the value, and the key leads to the record and to no other. */
static void model_check_document(struct model *model, const struct model_reader *reader, int c,
                                 uint64_t id, uint64_t value)
{
    struct model_document wanted;
    char key[64], metadata[128];
    uint64_t found = MODEL_NEVER;
    omendb_collection *handle = reader->handles[c];
    model_document(c, id, value, &wanted);
    if (!model_expect_code(model, omendb_get_key(handle, reader->txn, id, key, sizeof key, NULL),
                           OMENDB_OK) ||
        !model_expect_code(
            model,
            omendb_get_metadata(handle, reader->txn, id, NULL, 0, metadata, sizeof metadata, NULL),
            OMENDB_OK))
        return;
    model_expect(model, strcmp(key, wanted.key) == 0, "another key");
    model_expect(model, strcmp(metadata, wanted.metadata[0] == 0 ? "{}" : wanted.metadata) == 0,
                 "other metadata");
    if (key[0] != 0 &&
        model_expect_code(model, omendb_find(handle, reader->txn, key, &found), OMENDB_OK))
        model_expect(model, found == id, "the key leads elsewhere");
    /* One that the record had before, or will have, leads nowhere. */
    model_document(c, id, value + 2, &wanted);
    if (wanted.key[0] != 0 && strcmp(wanted.key, key) != 0)
        model_expect_code(model, omendb_find(handle, reader->txn, wanted.key, NULL),
                          OMENDB_NOTFOUND);
}

static void model_do_get(struct model *model, int c)
{
    const struct model_reader reader = model_reader(model);
    const uint64_t id = support_below(&model->random, MODEL_IDS);
    const uint64_t value = model_read(model, c, id, &reader);
    float vector[SUPPORT_DIM_MAX], wanted[SUPPORT_DIM_MAX];
    model->doing = reader.writes                      ? "get in a transaction"
                   : reader.handles != model->handles ? "get of a reader"
                   : reader.txn                       ? "get in a snapshot"
                                                      : "get";
    const int status = model_get(&reader, c, id, vector);
    if (!model_expect_code(model, status, value == 0 ? OMENDB_NOTFOUND : OMENDB_OK) || value == 0)
        return;
    model_vector(&model_kinds[c], value, wanted);
    model_expect(model, model_is_close(&model_kinds[c], vector, wanted), "another vector");
    model_check_document(model, &reader, c, id, value);
}

static uint64_t model_count(const struct model *model, int c, const struct model_reader *reader)
{
    uint64_t count = 0;
    for (uint64_t id = 0; id < MODEL_IDS; id++)
        count += model_read(model, c, id, reader) != 0;
    return count;
}

static void model_do_count(struct model *model, int c)
{
    const struct model_reader reader = model_reader(model);
    uint64_t count = 0;
    model->doing = "count";
    if (model_expect_code(model, omendb_count(reader.handles[c], reader.txn, &count), OMENDB_OK))
        model_expect(model, count == model_count(model, c, &reader), "another number");
}

static void model_do_scan(struct model *model, int c)
{
    const struct model_reader reader = model_reader(model);
    const struct model_kind *kind = &model_kinds[c];
    uint64_t id = support_below(&model->random, MODEL_IDS), seen = 0;
    const uint64_t to = id + support_below(&model->random, MODEL_IDS - id);
    float vector[SUPPORT_DIM_MAX], wanted[SUPPORT_DIM_MAX];
    omendb_rows *rows = NULL;
    model->doing = "scan";
    if (!model_expect_code(model, omendb_scan(reader.handles[c], reader.txn, id, to, &rows),
                           OMENDB_OK))
        return;
    for (; id <= to && !model->bad; id++) {
        const uint64_t value = model_read(model, c, id, &reader);
        const int is_f32 = kind->scalar != OMENDB_B1;
        if (value == 0)
            continue;
        const int status = omendb_rows_next(rows, &seen, OMENDB_F32, is_f32 ? vector : NULL);
        if (!model_expect_code(model, status, OMENDB_OK) ||
            !model_expect(model, seen == id, "another id"))
            break;
        model_vector(kind, value, wanted);
        model_expect(model, !is_f32 || model_is_close(kind, vector, wanted), "another vector");
    }
    if (!model->bad)
        model_expect_code(model, omendb_rows_next(rows, &seen, OMENDB_F32, NULL), OMENDB_DONE);
    omendb_rows_close(rows);
}

static void model_open_cursor(struct model *model, struct model_cursor *cursor, int c)
{
    struct model_reader reader = {model->handles, NULL, model->commit, NULL};
    const uint64_t from = support_below(&model->random, MODEL_IDS);
    const uint64_t to = from + support_below(&model->random, MODEL_IDS - from);
    cursor->of_reader = model->reader != NULL && support_below(&model->random, 3) == 0;
    if (cursor->of_reader) {
        reader.handles = model->reader_handles;
        reader.commit = model->reader_commit;
    }
    cursor->c = c;
    cursor->count = cursor->next = 0;
    for (uint64_t id = from; id <= to; id++) {
        cursor->ids[cursor->count] = id;
        cursor->values[cursor->count] = model_read(model, c, id, &reader);
        cursor->count += cursor->values[cursor->count] != 0;
    }
    model_expect_code(model, omendb_scan(reader.handles[c], NULL, from, to, &cursor->rows),
                      OMENDB_OK);
}

/* A cursor shows what there was when it was opened, whatever happened since. */
static void model_do_cursor(struct model *model, int c)
{
    struct model_cursor *cursor = &model->cursors[support_below(&model->random, MODEL_CURSORS)];
    float vector[SUPPORT_DIM_MAX], wanted[SUPPORT_DIM_MAX];
    uint64_t steps = 1 + support_below(&model->random, 40), id = 0;
    model->doing = "cursor";
    if (cursor->rows == NULL) {
        model_open_cursor(model, cursor, c);
        return;
    }
    const struct model_kind *kind = &model_kinds[cursor->c];
    const int is_f32 = kind->scalar != OMENDB_B1;
    for (; steps > 0 && cursor->next < cursor->count && !model->bad; steps--, cursor->next++) {
        const int status = omendb_rows_next(cursor->rows, &id, OMENDB_F32, is_f32 ? vector : NULL);
        if (!model_expect_code(model, status, OMENDB_OK) ||
            !model_expect(model, id == cursor->ids[cursor->next], "another id"))
            return;
        model_vector(kind, cursor->values[cursor->next], wanted);
        model_expect(model, !is_f32 || model_is_close(kind, vector, wanted), "another vector");
    }
    if (steps == 0)
        return;
    model_expect_code(model, omendb_rows_next(cursor->rows, &id, OMENDB_F32, NULL), OMENDB_DONE);
    model_close_cursor(cursor);
}

/* Opens the reader, moves it on, or gives it a transaction, which keeps it where it is. */
static void model_do_reader(struct model *model)
{
    const uint64_t dice = support_below(&model->random, 10);
    model->doing = "reader";
    if (model->in_memory)
        return;
    if (model->reader == NULL) {
        model_open_reader(model);
    } else if (model->reader_txn != NULL) {
        model_expect_code(model, omendb_refresh(model->reader), OMENDB_BUSY);
        omendb_txn_rollback(model->reader_txn);
        model->reader_txn = NULL;
    } else if (dice == 0) {
        model_close_reader(model);
    } else if (dice < 4) {
        model_expect_code(model,
                          omendb_txn_begin(model->reader, OMENDB_READ_ONLY, &model->reader_txn),
                          OMENDB_OK);
    } else {
        model_expect_code(model, omendb_refresh(model->reader), OMENDB_OK);
        model->reader_commit = model->commit;
    }
}

/* ------------------------------------------------------------------------------------------------
 * searching */

struct model_hit {
    float distance;
    uint64_t id;
};

static float model_distance(const struct model_kind *kind, const float *a, const float *b)
{
    float dot = 0.0f, aa = 0.0f, bb = 0.0f, different = 0.0f;
    for (uint32_t i = 0; i < kind->dim; i++) {
        dot += a[i] * b[i];
        aa += a[i] * a[i];
        bb += b[i] * b[i];
        different += a[i] != b[i] ? 1.0f : 0.0f;
    }
    switch (kind->metric) {
    case OMENDB_L2:
        return support_l2(a, b, kind->dim);
    case OMENDB_INNER_PRODUCT:
        return -dot;
    case OMENDB_COSINE:
        return (float)(1.0 - (double)dot / sqrt((double)aa * (double)bb));
    default:
        return different;
    }
}

static int model_order(const void *a, const void *b)
{
    const struct model_hit *x = a, *y = b;
    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

struct model_question {
    int c;
    struct model_reader reader;
    float vector[SUPPORT_DIM_MAX];
    uint64_t excluded; /* MODEL_NEVER: none */
    omendb_query query;
    struct model_hit hits[MODEL_IDS]; /* all, sorted; within the radius */
    size_t count;
};

static void model_answer(const struct model *model, struct model_question *question)
{
    const struct model_kind *kind = &model_kinds[question->c];
    float vector[SUPPORT_DIM_MAX];
    question->count = 0;
    for (uint64_t id = 0; id < MODEL_IDS; id++) {
        const uint64_t value = model_read(model, question->c, id, &question->reader);
        if (value == 0 || id == question->excluded)
            continue;
        model_vector(kind, value, vector);
        const float distance = model_distance(kind, question->vector, vector);
        if (question->query.use_radius && distance > question->query.radius)
            continue;
        question->hits[question->count++] = (struct model_hit){distance, id};
    }
    qsort(question->hits, question->count, sizeof question->hits[0], model_order);
}

/* Each hit is a visible record, at its true distance, once, in order. */
static void model_check_hits(struct model *model, const struct model_question *question,
                             const uint64_t *ids, const float *distances, size_t count)
{
    const struct model_kind *kind = &model_kinds[question->c];
    float vector[SUPPORT_DIM_MAX];
    for (size_t i = 0; i < count && !model->bad; i++) {
        if (!model_expect(model, ids[i] < MODEL_IDS && ids[i] != question->excluded,
                          "an id that never was"))
            return;
        const uint64_t value = model_read(model, question->c, ids[i], &question->reader);
        if (!model_expect(model, value != 0, "a hit that is not visible"))
            return;
        model_vector(kind, value, vector);
        const float distance = model_distance(kind, question->vector, vector);
        model_expect(model, fabsf(distance - distances[i]) <= kind->tolerance,
                     "the distance of a hit is wrong");
        model_expect(model,
                     i == 0 || distances[i - 1] < distances[i] ||
                         (distances[i - 1] == distances[i] && ids[i - 1] < ids[i]),
                     "hits are not in order");
    }
}

static void model_check_answer(struct model *model, const struct model_question *question,
                               const uint64_t *ids, const float *distances, size_t count)
{
    const struct model_kind *kind = &model_kinds[question->c];
    const size_t k = question->query.k;
    const size_t wanted = question->count < k ? question->count : k;
    model_check_hits(model, question, ids, distances, count);
    if (question->query.exact || !question->query.use_radius)
        model_expect(model, count == wanted || kind->tolerance > 0.0f, "another number of hits");
    for (size_t i = 0; i < wanted && question->query.exact && i < count; i++) {
        model_expect(model, fabsf(distances[i] - question->hits[i].distance) <= kind->tolerance,
                     "exact search missed a record");
        model_expect(model, kind->tolerance > 0.0f || ids[i] == question->hits[i].id,
                     "exact search gave another record");
    }
    if (question->query.exact || wanted == 0)
        return;
    model->approximate_wanted += wanted;
    for (size_t i = 0; i < count; i++)
        model->approximate_found +=
            distances[i] <= question->hits[wanted - 1].distance + kind->tolerance;
}

static void model_ask(struct model *model, struct model_question *question, int c)
{
    struct support_random *random = &model->random;
    const omendb_query query = OMENDB_QUERY_INIT;
    question->c = c;
    question->reader = model_reader(model);
    question->excluded = MODEL_NEVER;
    question->query = query;
    question->query.k = 1 + (size_t)support_below(random, MODEL_K_MAX);
    question->query.exact = support_below(random, 3) == 0;
    model_vector(&model_kinds[c], support_next(random), question->vector);
    if (support_below(random, 5) == 0) {
        question->query.use_radius = 1;
        question->query.radius = model_kinds[c].metric == OMENDB_L2        ? 300.0f
                                 : model_kinds[c].metric == OMENDB_HAMMING ? 12.0f
                                 : model_kinds[c].metric == OMENDB_COSINE  ? 0.51234f
                                                                           : -40.0f;
    }
}

static void model_do_search(struct model *model, int c)
{
    static struct model_question question;
    uint64_t ids[MODEL_K_MAX];
    float distances[MODEL_K_MAX];
    size_t count = 0;
    model_ask(model, &question, c);
    model->doing = question.query.exact ? "exact search" : "search";
    question.query.vector = question.vector;
    model_answer(model, &question);
    const int status = omendb_search(question.reader.handles[c], question.reader.txn,
                                     &question.query, ids, distances, &count);
    if (model_expect_code(model, status, OMENDB_OK) &&
        model_expect(model, count <= question.query.k, "more hits than asked for"))
        model_check_answer(model, &question, ids, distances, count);
}

static void model_do_search_by_id(struct model *model, int c)
{
    static struct model_question question;
    uint64_t ids[MODEL_K_MAX];
    float distances[MODEL_K_MAX];
    size_t count = 0;
    model_ask(model, &question, c);
    model->doing = "search by id";
    question.excluded = question.query.id = support_below(&model->random, MODEL_IDS);
    const uint64_t value = model_read(model, c, question.query.id, &question.reader);
    if (value != 0)
        model_vector(&model_kinds[c], value, question.vector);
    model_answer(model, &question);
    const int status = omendb_search(question.reader.handles[c], question.reader.txn,
                                     &question.query, ids, distances, &count);
    if (model_expect_code(model, status, value == 0 ? OMENDB_NOTFOUND : OMENDB_OK) && value != 0)
        model_check_answer(model, &question, ids, distances, count);
}

static void model_do_search_batch(struct model *model, int c)
{
    static struct model_question question;
    float vectors[3 * SUPPORT_DIM_MAX];
    uint64_t ids[3 * MODEL_K_MAX];
    float distances[3 * MODEL_K_MAX];
    size_t counts[3] = {0, 0, 0};
    const uint32_t dim = model_kinds[c].dim;
    model_ask(model, &question, c);
    model->doing = "batch search";
    for (size_t i = 0; i < 3; i++)
        model_vector(&model_kinds[c], support_next(&model->random), vectors + i * dim);
    const int status = omendb_search_batch(question.reader.handles[c], question.reader.txn,
                                           &question.query, vectors, 3, ids, distances, counts);
    if (!model_expect_code(model, status, OMENDB_OK))
        return;
    for (size_t i = 0; i < 3 && !model->bad; i++) {
        const size_t k = question.query.k;
        memcpy(question.vector, vectors + i * dim, dim * sizeof(float));
        model_answer(model, &question);
        model_check_answer(model, &question, ids + i * k, distances + i * k, counts[i]);
        for (size_t j = counts[i]; j < k; j++)
            model_expect(model, ids[i * k + j] == OMENDB_ID_AUTO && isinf(distances[i * k + j]),
                         "places past the hits are not filled");
    }
}

static void model_open_pages(struct model *model, struct model_pages *pages, int c)
{
    static struct model_question question;
    model_ask(model, &question, c);
    question.reader = (struct model_reader){model->handles, NULL, model->commit, NULL};
    pages->of_reader = model->reader != NULL && support_below(&model->random, 3) == 0;
    if (pages->of_reader)
        question.reader =
            (struct model_reader){model->reader_handles, NULL, model->reader_commit, NULL};
    question.query.vector = question.vector;
    model_answer(model, &question);
    pages->exact = question.query.exact != 0;
    pages->whole = !question.query.use_radius;
    pages->tolerance = model_kinds[c].tolerance;
    pages->count = question.count;
    pages->next = 0;
    memset(pages->is_hit, 0, sizeof pages->is_hit);
    for (size_t i = 0; i < question.count; i++) {
        pages->ids[i] = question.hits[i].id;
        pages->distances[i] = question.hits[i].distance;
        pages->is_hit[question.hits[i].id] = 1;
    }
    model_expect_code(
        model, omendb_pages_open(question.reader.handles[c], NULL, &question.query, &pages->pages),
        OMENDB_OK);
}

/* One page: hits of the state when it was opened, whatever happened since, none of them twice. */
static void model_do_pages(struct model *model, int c)
{
    struct model_pages *pages = &model->pages;
    uint64_t ids[MODEL_K_MAX];
    float distances[MODEL_K_MAX];
    size_t count = 0;
    model->doing = "pages";
    if (pages->pages == NULL) {
        model_open_pages(model, pages, c);
        return;
    }
    const size_t k = 1 + (size_t)support_below(&model->random, MODEL_K_MAX);
    const int status = omendb_pages_next(pages->pages, k, 0, ids, distances, &count);
    if (!model_expect(model, status == OMENDB_OK || status == OMENDB_DONE, "a page failed"))
        return;
    for (size_t i = 0; i < count && !model->bad; i++, pages->next++) {
        if (!model_expect(model, ids[i] < MODEL_IDS && pages->is_hit[ids[i]] != 0,
                          "a hit that is none, or comes twice"))
            return;
        pages->is_hit[ids[i]] = 0;
        model_expect(model,
                     !pages->exact ||
                         (fabsf(distances[i] - pages->distances[pages->next]) <= pages->tolerance &&
                          (pages->tolerance > 0.0f || ids[i] == pages->ids[pages->next])),
                     "exact pages are not the search");
    }
    if (status != OMENDB_DONE)
        return;
    model_expect(model,
                 pages->next == pages->count || pages->tolerance > 0.0f ||
                     (!pages->exact && !pages->whole),
                 "pages end too early");
    model_close_pages(pages);
}

/* ------------------------------------------------------------------------------------------------
 * writing */

static int model_write(struct model *model, int c, omendb_txn *txn, int add, size_t count,
                       const uint64_t *ids, const uint64_t *values)
{
    const struct model_kind *kind = &model_kinds[c];
    static struct model_document documents[20];
    float vectors[20 * SUPPORT_DIM_MAX];
    omendb_record records[20];
    for (size_t i = 0; i < count; i++) {
        model_vector(kind, values[i], vectors + i * kind->dim);
        model_document(c, ids[i], values[i], &documents[i]);
        records[i] = (omendb_record)OMENDB_RECORD_INIT;
        records[i].id = ids[i];
        records[i].vector = vectors + i * kind->dim;
        records[i].key = documents[i].key[0] == 0 ? NULL : documents[i].key;
        records[i].metadata = documents[i].metadata[0] == 0 ? NULL : documents[i].metadata;
    }
    if (count == 1)
        return add ? omendb_add(model->handles[c], txn, records, NULL)
                   : omendb_put(model->handles[c], txn, records, NULL);
    if (model_has_documents(c))
        return add ? omendb_add_records(model->handles[c], txn, count, records, NULL)
                   : omendb_put_records(model->handles[c], txn, count, records, NULL);
    return add ? omendb_add_batch(model->handles[c], txn, count, ids, vectors, OMENDB_F32, NULL)
               : omendb_put_batch(model->handles[c], txn, count, ids, vectors, OMENDB_F32, NULL);
}

static int model_is_waiting(const struct model *model, int slot)
{
    return model->prepared[slot].state == OMENDB_PREPARED_WAITING;
}

/* 1: a prepared transaction has locked one of the records; 0: none did; -1: either, as it added and
 * deleted it. */
static int model_is_locked(const struct model *model, int c, size_t count, const uint64_t *ids)
{
    int answer = 0;
    for (int slot = 0; slot < MODEL_PREPARED; slot++) {
        const struct model_writes *writes = &model->prepared[slot].writes;
        for (size_t i = 0; i < count && model_is_waiting(model, slot); i++) {
            if (writes->value[c][ids[i]] == MODEL_NEVER)
                continue;
            if (writes->value[c][ids[i]] != 0 || !writes->undone[c][ids[i]])
                return 1;
            answer = -1;
        }
    }
    return answer;
}

/* Whether the status is that of a lock; what a lock must refuse and did not is a failure. */
static int model_refused(struct model *model, int status, int locked)
{
    if (locked > 0)
        model_expect_code(model, status, OMENDB_BUSY);
    model->refused += status == OMENDB_BUSY;
    return status == OMENDB_BUSY && locked != 0;
}

/* What writing these ids in a transaction has to return, by the changes of others. */
static int model_has_conflict(const struct model *model, int c, size_t count, const uint64_t *ids)
{
    for (size_t i = 0; i < count; i++)
        if (model->collections[c].records[ids[i]].changed > model->writes.snapshot)
            return 1;
    return 0;
}

static void model_do_write(struct model *model, int c, int add, size_t count)
{
    uint64_t ids[20], values[20];
    struct model_reader reader = {model->handles, NULL, model->commit, NULL};
    int taken = 0, status;
    const int in_txn = model->txn != NULL && support_below(&model->random, 3) == 0;
    if (in_txn) {
        reader = (struct model_reader){model->handles, model->txn, model->writes.snapshot,
                                       &model->writes};
    }
    ids[0] = support_below(&model->random, MODEL_IDS);
    for (size_t i = 0; i < count; i++) {
        ids[i] = (ids[0] + i * 7) % MODEL_IDS;
        values[i] = ++model->next_value;
        taken |= model_read(model, c, ids[i], &reader) != 0;
    }
    model->doing =
        in_txn ? (add ? "add in a transaction" : "put in a transaction") : (add ? "add" : "put");
    status = model_write(model, c, reader.txn, add, count, ids, values);
    if (in_txn && status == OMENDB_CONFLICT && model_has_conflict(model, c, count, ids))
        return;
    if (in_txn && status == OMENDB_EXISTS && add && model_has_conflict(model, c, count, ids))
        return;
    const int locked = in_txn ? 0 : model_is_locked(model, c, count, ids);
    if (model_refused(model, status, add && taken && locked ? -1 : locked))
        return;
    if (!model_expect_code(model, status, add && taken ? OMENDB_EXISTS : OMENDB_OK) ||
        status != OMENDB_OK)
        return;
    model->commit += !in_txn;
    for (size_t i = 0; i < count; i++) {
        if (in_txn)
            model->writes.value[c][ids[i]] = values[i];
        else
            model_apply_put(model, c, ids[i], values[i]);
    }
}

static void model_delete_one(struct model *model, int c, uint64_t id, int in_txn)
{
    const struct model_reader before = {model->handles, NULL, model->writes.snapshot, NULL};
    if (!in_txn) {
        model_apply_delete(model, c, id);
        return;
    }
    model->writes.undone[c][id] = model_read(model, c, id, &before) == 0;
    model->writes.value[c][id] = 0;
}

/* As model_is_locked; -1 also where only records that do not exist are locked. */
static int model_locks_existing(const struct model *model, int c, size_t count, const uint64_t *ids,
                                const struct model_reader *reader)
{
    int answer = 0;
    for (size_t i = 0; i < count && answer <= 0; i++) {
        const int locked = model_is_locked(model, c, 1, &ids[i]);
        if (locked != 0)
            answer = locked > 0 && model_read(model, c, ids[i], reader) != 0 ? 1 : -1;
    }
    return answer;
}

static void model_do_delete(struct model *model, int c, size_t count)
{
    uint64_t ids[20];
    struct model_reader reader = {model->handles, NULL, model->commit, NULL};
    size_t existing = 0, deleted = 0;
    const int in_txn = model->txn != NULL && support_below(&model->random, 3) == 0;
    int status;
    if (in_txn)
        reader = (struct model_reader){model->handles, model->txn, model->writes.snapshot,
                                       &model->writes};
    ids[0] = support_below(&model->random, MODEL_IDS);
    for (size_t i = 0; i < count; i++) {
        ids[i] = (ids[0] + i * 3) % MODEL_IDS;
        existing += model_read(model, c, ids[i], &reader) != 0;
    }
    model->doing = in_txn ? "delete in a transaction" : "delete";
    status = count == 1 ? omendb_delete(model->handles[c], reader.txn, ids[0])
                        : omendb_delete_batch(model->handles[c], reader.txn, count, ids, &deleted);
    if (in_txn && (status == OMENDB_CONFLICT || status == OMENDB_NOTFOUND) &&
        model_has_conflict(model, c, count, ids))
        return;
    /* Of those that are not there yet, a lock may be told or not. */
    const int locked = in_txn ? 0 : model_locks_existing(model, c, count, ids, &reader);
    if (model_refused(model, status, locked))
        return;
    if (!model_expect_code(model, status,
                           count == 1 && existing == 0 ? OMENDB_NOTFOUND : OMENDB_OK) ||
        status != OMENDB_OK)
        return;
    model_expect(model, count == 1 || deleted == existing, "another number of deleted records");
    model->commit += !in_txn;
    for (size_t i = 0; i < count; i++)
        if (model_read(model, c, ids[i], &reader) != 0)
            model_delete_one(model, c, ids[i], in_txn);
}

static void model_do_update(struct model *model, int c)
{
    char patch[48];
    struct model_reader reader = {model->handles, NULL, model->commit, NULL};
    const int in_txn = model->txn != NULL && support_below(&model->random, 3) == 0;
    const uint64_t id = support_below(&model->random, MODEL_IDS),
                   number = ++model->next_value % 1000000 + 1;
    if (in_txn)
        reader = (struct model_reader){model->handles, model->txn, model->writes.snapshot,
                                       &model->writes};
    const uint64_t before = model_read(model, c, id, &reader);
    const uint64_t after = (before & MODEL_PUT) | number << MODEL_UPDATE_SHIFT;
    model->doing = in_txn ? "update in a transaction" : "update";
    snprintf(patch, sizeof patch, "{\"updated\":%llu}", (unsigned long long)number);
    const int status = omendb_update(model->handles[c], reader.txn, id, patch);
    const int locked = in_txn ? 0 : model_locks_existing(model, c, 1, &id, &reader);
    if (model_refused(model, status, locked))
        return;
    if (!model_expect_code(model, status, before == 0 ? OMENDB_NOTFOUND : OMENDB_OK) ||
        status != OMENDB_OK)
        return;
    model->commit += !in_txn;
    if (in_txn)
        model->writes.value[c][id] = after;
    else
        model_apply_put(model, c, id, after);
}

/* ------------------------------------------------------------------------------------------------
 * transactions */

static void model_do_begin(struct model *model)
{
    model->doing = "begin";
    if (model->txn != NULL ||
        !model_expect_code(model, omendb_txn_begin(model->db, OMENDB_READ_WRITE, &model->txn),
                           OMENDB_OK))
        return;
    model->writes.snapshot = model->commit;
    memset(model->writes.undone, 0, sizeof model->writes.undone);
    for (int c = 0; c < MODEL_COLLECTIONS; c++)
        for (uint64_t id = 0; id < MODEL_IDS; id++)
            model->writes.value[c][id] = MODEL_NEVER;
}

/* 1: conflicts, 0: does not, -1: either, as only ids that the transaction left alone changed. */
static int model_conflicts(const struct model *model)
{
    int answer = 0;
    for (int c = 0; c < MODEL_COLLECTIONS; c++)
        for (uint64_t id = 0; id < MODEL_IDS; id++) {
            if (model->writes.value[c][id] == MODEL_NEVER ||
                model->collections[c].records[id].changed <= model->writes.snapshot)
                continue;
            if (!model->writes.undone[c][id] || model->writes.value[c][id] != 0)
                return 1;
            answer = -1;
        }
    return answer;
}

/* As model_conflicts, for locks of prepared transactions. */
static int model_meets_lock(const struct model *model)
{
    int answer = 0;
    for (int c = 0; c < MODEL_COLLECTIONS; c++)
        for (uint64_t id = 0; id < MODEL_IDS; id++) {
            const int locked =
                model->writes.value[c][id] == MODEL_NEVER ? 0 : model_is_locked(model, c, 1, &id);
            const int surely = !model->writes.undone[c][id] || model->writes.value[c][id] != 0;
            if (locked > 0 && surely)
                return 1;
            answer = locked != 0 ? -1 : answer;
        }
    return answer;
}

static void model_apply_writes(struct model *model, const struct model_writes *writes)
{
    model->commits++;
    model->commit++;
    for (int c = 0; c < MODEL_COLLECTIONS; c++)
        for (uint64_t id = 0; id < MODEL_IDS; id++) {
            /* Of one that was added and deleted again nothing is left, also where others have
             * committed one of that id meanwhile. */
            if (writes->value[c][id] == MODEL_NEVER ||
                (writes->value[c][id] == 0 && writes->undone[c][id]))
                continue;
            if (writes->value[c][id] == 0)
                model_apply_delete(model, c, id);
            else
                model_apply_put(model, c, id, writes->value[c][id]);
        }
}

/* What committing or preparing the transaction returned must have one of the reasons that there
 * are, and there must have been none where it is OMENDB_OK. */
static void model_expect_reason(struct model *model, int status, int exists)
{
    const int conflicts = model_conflicts(model), locked = model_meets_lock(model);
    if (status == OMENDB_OK)
        model_expect(model, conflicts <= 0 && locked <= 0 && !exists, "it was to be refused");
    else if (status == OMENDB_EXISTS)
        model_expect(model, exists, "there is none of that name");
    else if (status == OMENDB_BUSY)
        model_expect(model, locked != 0, "nothing is locked");
    else if (model_expect_code(model, status, OMENDB_CONFLICT))
        model_expect(model, conflicts != 0, "nothing conflicts");
    model->conflicts += status == OMENDB_CONFLICT;
    model->refused += status == OMENDB_BUSY;
}

static void model_do_end(struct model *model)
{
    model->doing = "commit of a transaction";
    if (model->txn == NULL)
        return;
    if (support_below(&model->random, 4) == 0) {
        omendb_txn_rollback(model->txn);
        model->txn = NULL;
        return;
    }
    const int status = omendb_txn_commit(model->txn);
    model->txn = NULL;
    model_expect_reason(model, status, 0);
    if (status == OMENDB_OK)
        model_apply_writes(model, &model->writes);
}

/* ------------------------------------------------------------------------------------------------
 * commits in two phases */

static void model_prepared_name(int slot, char name[16])
{
    snprintf(name, 16, "prepared %d", slot);
}

static void model_do_prepare(struct model *model, int slot)
{
    char name[16];
    struct model_prepared *prepared = &model->prepared[slot];
    model->doing = "prepare";
    if (model->txn == NULL)
        return;
    model_prepared_name(slot, name);
    const int status = omendb_txn_prepare(model->txn, name);
    model->txn = NULL;
    model_expect_reason(model, status, prepared->state != 0);
    if (status != OMENDB_OK)
        return;
    prepared->state = OMENDB_PREPARED_WAITING;
    prepared->writes = model->writes;
}

/* The outcome, once or once more, or the other one, which is too late. */
static void model_do_settle(struct model *model, int slot, int outcome)
{
    char name[16];
    struct model_prepared *prepared = &model->prepared[slot];
    const int commits = outcome == OMENDB_PREPARED_COMMITTED;
    model->doing = commits ? "commit of a prepared transaction" : "rollback of a prepared one";
    model_prepared_name(slot, name);
    const int status = commits ? omendb_commit_prepared(model->db, name)
                               : omendb_rollback_prepared(model->db, name);
    if (prepared->state != OMENDB_PREPARED_WAITING) {
        model_expect_code(model, status,
                          prepared->state == 0         ? OMENDB_NOTFOUND
                          : prepared->state == outcome ? OMENDB_OK
                                                       : OMENDB_CONFLICT);
        return;
    }
    if (!model_expect_code(model, status, OMENDB_OK))
        return;
    prepared->state = outcome;
    if (commits)
        model_apply_writes(model, &prepared->writes);
}

static void model_do_forget(struct model *model, int slot)
{
    char name[16];
    model->doing = "forget";
    model_prepared_name(slot, name);
    model_expect_code(model, omendb_forget_prepared(model->db, name),
                      model->prepared[slot].state == 0 ? OMENDB_NOTFOUND
                      : model_is_waiting(model, slot)  ? OMENDB_BUSY
                                                       : OMENDB_OK);
    if (!model_is_waiting(model, slot))
        model->prepared[slot].state = 0;
}

static void model_list_prepared(struct model *model, omendb *db)
{
    char name[OMENDB_PREPARED_NAME_MAX + 1], wanted[16];
    size_t index = 0;
    int state = 0;
    for (int slot = 0; slot < MODEL_PREPARED && !model->bad; slot++) {
        if (model->prepared[slot].state == 0)
            continue;
        model_prepared_name(slot, wanted);
        if (model_expect_code(model, omendb_prepared_name(db, index++, name, sizeof name, &state),
                              OMENDB_OK))
            model_expect(model, strcmp(name, wanted) == 0 && state == model->prepared[slot].state,
                         "another prepared transaction");
    }
    if (!model->bad)
        model_expect_code(model, omendb_prepared_name(db, index, name, sizeof name, &state),
                          OMENDB_DONE);
}

static void model_do_two_phases(struct model *model)
{
    const uint64_t dice = support_below(&model->random, 10);
    const int slot = (int)support_below(&model->random, MODEL_PREPARED);
    if (dice < 4)
        model_do_prepare(model, slot);
    else if (dice < 6)
        model_do_settle(model, slot, OMENDB_PREPARED_COMMITTED);
    else if (dice < 7)
        model_do_settle(model, slot, OMENDB_PREPARED_ROLLED_BACK);
    else if (dice < 9)
        model_do_forget(model, slot);
    if (!model->bad)
        model_list_prepared(model, model->db);
}

static void model_do_snapshot(struct model *model)
{
    const uint64_t slot = support_below(&model->random, MODEL_SNAPSHOTS);
    model->doing = "snapshot";
    omendb_txn_rollback(model->snapshots[slot]);
    model->snapshots[slot] = NULL;
    if (support_below(&model->random, 3) == 0)
        return;
    model_expect_code(model, omendb_txn_begin(model->db, OMENDB_READ_ONLY, &model->snapshots[slot]),
                      OMENDB_OK);
    model->snapshot_commits[slot] = model->commit;
}

/* ------------------------------------------------------------------------------------------------
 * the rest */

/* Only what may still read deleted rows keeps a purge from erasing them. */
static void model_do_purge(struct model *model, int c)
{
    int readers = model->txn != NULL || model->reader != NULL;
    for (int i = 0; i < MODEL_SNAPSHOTS; i++)
        readers |= model->snapshots[i] != NULL;
    for (int i = 0; i < MODEL_CURSORS; i++)
        readers |= model->cursors[i].rows != NULL;
    readers |= model->pages.pages != NULL;
    model->doing = "purge";
    const int status = omendb_purge(model->db, c % 2 ? model_kinds[c].name : NULL);
    if (status != OMENDB_BUSY || !readers)
        model_expect_code(model, status, OMENDB_OK);
}

/* All records of a backup, and what is prepared in it. */
static void model_compare_backup(struct model *model, const char *path)
{
    omendb *db = NULL;
    omendb_collection *handles[MODEL_COLLECTIONS] = {NULL};
    struct model_reader now = {handles, NULL, model->commit, NULL};
    omendb_options options = model_options(model);
    float vector[SUPPORT_DIM_MAX], wanted[SUPPORT_DIM_MAX];
    options.read_only = 1;
    model_expect_code(model, omendb_open(path, &options, &db), OMENDB_OK);
    for (int c = 0; c < MODEL_COLLECTIONS && !model->bad; c++) {
        model_expect_code(model, omendb_collection_open(db, model_kinds[c].name, NULL, &handles[c]),
                          OMENDB_OK);
        for (uint64_t id = 0; id < MODEL_IDS && !model->bad; id++) {
            const uint64_t value = model_read(model, c, id, &now);
            model_vector(&model_kinds[c], value, wanted);
            model_expect_code(model, model_get(&now, c, id, vector),
                              value == 0 ? OMENDB_NOTFOUND : OMENDB_OK);
            model_expect(model, value == 0 || model_is_close(&model_kinds[c], vector, wanted),
                         "another vector");
            if (value != 0 && !model->bad)
                model_check_document(model, &now, c, id, value);
        }
    }
    if (!model->bad)
        model_list_prepared(model, db);
    for (int c = 0; c < MODEL_COLLECTIONS; c++)
        omendb_collection_close(handles[c]);
    const int status = omendb_close(db);
    model_expect_code(model, status, OMENDB_OK);
}

static void model_do_backup(struct model *model)
{
    char path[4200];
    snprintf(path, sizeof path, "%s-copy", model->path);
    model->doing = "backup";
    if (!model->in_memory && model_expect_code(model, omendb_backup(model->db, path), OMENDB_OK))
        model_compare_backup(model, path);
}

/* Bytes of a document as it is stored. */
static uint64_t model_document_bytes(int c, uint64_t id, uint64_t value)
{
    struct model_document document;
    model_document(c, id, value, &document);
    const uint64_t key = strlen(document.key);
    uint64_t fields = 0;
    if (strstr(document.metadata, "some") != NULL)
        fields += 2 * 12 + 4 + 13 + 5 + 8;
    if (strstr(document.metadata, "updated") != NULL)
        fields += 12 + 7 + 8;
    return key + fields == 0 ? 0 : (8 + key + fields + 7) / 8 * 8;
}

/* What the collection holds, and what is counted as its size. */
static uint64_t model_count_usage(const struct model *model, int c, uint64_t *bytes)
{
    static const uint64_t vector_bytes[MODEL_COLLECTIONS] = {12 * 4, 20 * 2, 11 * 4, 16, 4};
    const struct model_reader newest = {NULL, NULL, model->commit, NULL};
    uint64_t records = 0;
    *bytes = 0;
    for (uint64_t id = 0; id < MODEL_IDS; id++) {
        const uint64_t value = model_read(model, c, id, &newest);
        records += value != 0;
        *bytes += value == 0 ? 0 : 8 + vector_bytes[c] + model_document_bytes(c, id, value);
    }
    return records;
}

/* What is counted is what is there, and with no room left a new record is refused. */
static void model_do_limits(struct model *model, int c)
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    omendb_limits limits = OMENDB_LIMITS_INIT;
    const struct model_reader newest = {model->handles, NULL, model->commit, NULL};
    const uint64_t id = support_below(&model->random, MODEL_IDS), value = ++model->next_value;
    uint64_t bytes;
    model->doing = "limits";
    limits.records = model_count_usage(model, c, &bytes);
    limits.bytes = limits.records == 0 ? 1 : 0;
    model_expect_code(model, omendb_collection_get_stats(model->handles[c], &stats), OMENDB_OK);
    model_expect(model, stats.records == model_count_usage(model, c, &bytes), "records are more");
    model_expect(model, stats.bytes == bytes, "bytes are others");
    if (model_read(model, c, id, &newest) != 0 || model_is_locked(model, c, 1, &id) != 0)
        return;
    model_expect_code(model, omendb_collection_set_limits(model->handles[c], &limits), OMENDB_OK);
    model_expect_code(model, model_write(model, c, NULL, 1, 1, &id, &value), OMENDB_QUOTA);
    model_expect_code(model, omendb_collection_set_limits(model->handles[c], NULL), OMENDB_OK);
}

static void model_do_maintenance(struct model *model, int c)
{
    const uint64_t dice = support_below(&model->random, 22);
    model->doing = "maintenance";
    if (dice < 9) {
        model->doing = "checkpoint";
        model_expect_code(model, omendb_checkpoint(model->db), OMENDB_OK);
    } else if (dice < 10) {
        model->doing = "optimize";
        model_expect_code(model, omendb_optimize(model->db, NULL, NULL), OMENDB_OK);
    } else if (dice < 15) {
        model->doing = "work";
        model_expect_code(model, omendb_work(model->db, 1000, NULL), OMENDB_OK);
    } else if (dice < 18 && !model->in_memory) {
        model->doing = "reopen";
        model_close(model);
        if (!model->bad)
            model_open(model);
    } else if (dice < 20) {
        model->doing = "check";
        model_expect_code(model, support_check(model->db), OMENDB_OK);
    } else if (dice < 21) {
        model_do_purge(model, c);
    } else {
        model_do_backup(model);
    }
    model_forget(model);
}

static void model_step(struct model *model)
{
    const uint64_t dice = support_below(&model->random, 1000);
    const int c = (int)support_below(&model->random, MODEL_COLLECTIONS);
    const size_t many = 2 + (size_t)support_below(&model->random, 18);
    if (dice < 150)
        model_do_write(model, c, 0, 1);
    else if (dice < 220)
        model_do_write(model, c, 0, many);
    else if (dice < 280)
        model_do_write(model, c, 1, dice % 2 ? 1 : many / 5 + 1);
    else if (dice < 390)
        if (dice % 2 != 0)
            model_do_update(model, c);
        else
            model_do_delete(model, c, 1);
    else if (dice < 420)
        model_do_delete(model, c, many);
    else if (dice < 600)
        model_do_get(model, c);
    else if (dice < 640)
        model_do_count(model, c);
    else if (dice < 660)
        model_do_scan(model, c);
    else if (dice < 685)
        model_do_cursor(model, c);
    else if (dice < 700)
        model_do_reader(model);
    else if (dice < 740)
        model_do_pages(model, c);
    else if (dice < 840)
        model_do_search(model, c);
    else if (dice < 880)
        model_do_search_by_id(model, c);
    else if (dice < 910)
        model_do_search_batch(model, c);
    else if (dice < 935)
        model_do_snapshot(model);
    else if (dice < 965)
        model_do_begin(model);
    else if (dice < 985)
        model_do_end(model);
    else if (dice < 991)
        model_do_two_phases(model);
    else if (dice < 994)
        model_do_limits(model, c);
    else
        model_do_maintenance(model, c);
}

/* ------------------------------------------------------------------------------------------------
 * phases */

static uint64_t model_operations, model_seed;

struct model_result {
    uint64_t done, commits, conflicts, refused, wanted, found;
};

struct model_phase {
    int threads, kind; /* of files: 0: crash_vfs.h, 1: the real file system, 2: none */
    uint64_t operations;
};

static void model_begin(struct model *model, int threads, int kind, uint64_t seed)
{
    memset(model, 0, sizeof *model);
    model->random.state = seed;
    model->threads = threads;
    model->in_memory = kind == 2;
    model->fs = kind == 0 ? crash_fs_create(0) : NULL;
    model->doing = "open";
    snprintf(model->path, sizeof model->path, "%s", kind == 0 ? "/db" : ":memory:");
}

static void model_end(struct model *model, struct model_result *result)
{
    result->done += model->done;
    result->commits += model->commits;
    result->conflicts += model->conflicts;
    result->refused += model->refused;
    result->wanted += model->approximate_wanted;
    result->found += model->approximate_found;
    crash_fs_destroy(model->fs);
    for (int c = 0; c < MODEL_COLLECTIONS; c++)
        for (uint64_t id = 0; id < MODEL_IDS; id++)
            free(model->collections[c].records[id].rows);
}

static void model_remove_files(const struct model *model)
{
    char copy[4200];
    snprintf(copy, sizeof copy, "%s-copy", model->path);
    support_remove(copy);
    support_remove(model->path);
}

static int model_shard(uint64_t shard, void *result, const void *argument)
{
    static struct model model;
    const struct model_phase *phase = argument;
    const uint64_t seed =
        model_seed + shard + UINT64_C(1000000) * (uint64_t)(phase->kind * 10 + phase->threads);
    char name[32];
    model_begin(&model, phase->threads, phase->kind, seed);
    snprintf(name, sizeof name, "model-%llu", (unsigned long long)shard);
    if (phase->kind == 1) {
        snprintf(model.path, sizeof model.path, "%s", support_path(name));
        model_remove_files(&model);
    }
    model_open(&model);
    for (; model.done < phase->operations && !model.bad; model.done++)
        model_step(&model);
    if (!model.bad)
        model.doing = "last close";
    model_close(&model);
    if (model.bad)
        fprintf(stderr, "FAILED: seed %llu, %d threads, files of kind %d\n",
                (unsigned long long)seed, phase->threads, phase->kind);
    else if (phase->kind == 1)
        model_remove_files(&model);
    model_end(&model, result);
    return model.bad;
}

/* The share of the operations, in shards. */
static void model_run(int threads, int kind, double share)
{
    const uint64_t operations = (uint64_t)((double)model_operations * share);
    const uint64_t shards = (operations + MODEL_SHARD - 1) / MODEL_SHARD;
    const struct model_phase phase = {threads, kind, operations / shards};
    struct model_result *results = parallel_memory(shards * sizeof *results);
    struct model_result sum = {0};
    support_folder();
    const int bad = parallel_run(shards, 1, model_shard, sizeof *results, results, &phase);
    for (uint64_t i = 0; i < shards; i++) {
        sum.done += results[i].done;
        sum.commits += results[i].commits;
        sum.conflicts += results[i].conflicts;
        sum.refused += results[i].refused;
        sum.wanted += results[i].wanted;
        sum.found += results[i].found;
    }
    munmap(results, shards * sizeof *results);
    const double recall = sum.wanted == 0 ? 1.0 : (double)sum.found / (double)sum.wanted;
    printf("  %llu operations in %llu shards, seed %llu, %d threads: recall %.4f, %llu commits of "
           "transactions, %llu conflicts, %llu refused by locks\n",
           (unsigned long long)sum.done, (unsigned long long)shards, (unsigned long long)model_seed,
           threads, recall, (unsigned long long)sum.commits, (unsigned long long)sum.conflicts,
           (unsigned long long)sum.refused);
    CHECK_EQ_INT(bad, 0);
    CHECK(recall >= 0.95);
}

/* What one process of the relay hands to the next one. */
struct model_relay {
    uint64_t legs, random, commit, next_value, failed;
    struct model_result result;
    struct model_row rows[MODEL_COLLECTIONS][MODEL_IDS]; /* value 0: absent */
    struct model_prepared prepared[MODEL_PREPARED];
    char kernels[8][24];
};

static void model_hand_over(struct model *model, struct model_relay *relay)
{
    relay->random = model->random.state;
    relay->commit = model->commit;
    relay->next_value = model->next_value;
    memcpy(relay->prepared, model->prepared, sizeof relay->prepared);
    for (int c = 0; c < MODEL_COLLECTIONS; c++)
        for (uint64_t id = 0; id < MODEL_IDS; id++) {
            const struct model_record *record = &model->collections[c].records[id];
            const struct model_row none = {0, 0, 0};
            const struct model_row *last =
                record->count == 0 ? &none : &record->rows[record->count - 1];
            relay->rows[c][id] = last->end == MODEL_NEVER ? *last : none;
        }
}

static void model_take_over(struct model *model, const struct model_relay *relay)
{
    model->random.state = relay->random;
    model->commit = relay->commit;
    model->next_value = relay->next_value;
    memcpy(model->prepared, relay->prepared, sizeof model->prepared);
    for (int c = 0; c < MODEL_COLLECTIONS; c++)
        for (uint64_t id = 0; id < MODEL_IDS; id++)
            if (relay->rows[c][id].value != 0)
                model_add_row(&model->collections[c].records[id], relay->rows[c][id]);
}

/* One process: opens what the last one left, and works on it. */
static int model_leg(uint64_t shard, void *result, const void *argument)
{
    static const char *const levels[] = {"avx512vnni", "scalar",      "avx2",
                                         "avx512",     "neondotprod", "neon"};
    static struct model model;
    struct model_relay *relay = *(struct model_relay *const *)argument;
    const uint64_t leg = relay->legs++;
    (void)shard;
    (void)result;
    setenv("OMENDB_KERNELS", levels[leg % 6], 1);
    model_begin(&model, 0, 1, 0);
    snprintf(model.path, sizeof model.path, "%s/relay", support_folder());
    model_take_over(&model, relay);
    model.io_is_given = 1;
    model.io = leg % 2 ? OMENDB_IO_PREAD : OMENDB_IO_MAP;
    model_open(&model);
    for (; model.done < MODEL_LEG && !model.bad; model.done++)
        model_step(&model);
    model_close(&model);
    snprintf(relay->kernels[leg % 6], sizeof relay->kernels[0], "%s", omendb_kernels());
    model_hand_over(&model, relay);
    model_end(&model, &relay->result);
    if (model.bad)
        fprintf(stderr, "FAILED: leg %llu, kernels %s, seed %llu\n", (unsigned long long)leg,
                omendb_kernels(), (unsigned long long)model_seed);
    return model.bad;
}

/* Forks one process, so that it chooses its kernels anew. 1: it failed. */
static int model_run_leg(struct model_relay *relay)
{
    int status = 0;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0)
        exit(model_leg(0, NULL, &relay));
    return child < 0 || waitpid(child, &status, 0) != child || status != 0;
}

/* First of the tests: this process has not chosen its kernels yet. */
TEST(answers_are_the_same_whatever_kernels_and_io_a_process_has)
{
    struct model_relay *relay = parallel_memory(sizeof *relay);
    const uint64_t legs = (uint64_t)((double)model_operations * 0.06) / MODEL_LEG + 3;
    int bad = 0;
    support_path("relay-copy");
    support_path("relay");
    relay->random = model_seed;
    while (relay->legs < legs && bad == 0)
        bad = model_run_leg(relay);
    printf("  %llu operations in %llu processes, one after the other; kernels:",
           (unsigned long long)relay->result.done, (unsigned long long)relay->legs);
    for (int i = 0; i < 6; i++)
        printf(" %s", relay->kernels[i]);
    printf("\n");
    munmap(relay, sizeof *relay);
    CHECK_EQ_INT(bad, 0);
}

TEST(answers_equal_a_flat_array_without_threads)
{
    model_run(0, 0, 0.5);
}
TEST(answers_equal_a_flat_array_with_two_threads)
{
    model_run(2, 0, 0.3);
}
TEST(answers_equal_a_flat_array_on_the_real_file_system)
{
    model_run(2, 1, 0.07);
}
TEST(answers_equal_a_flat_array_without_files)
{
    model_run(0, 2, 0.1);
}

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {answers_are_the_same_whatever_kernels_and_io_a_process_has,
                                        answers_equal_a_flat_array_without_threads,
                                        answers_equal_a_flat_array_with_two_threads,
                                        answers_equal_a_flat_array_on_the_real_file_system,
                                        answers_equal_a_flat_array_without_files};
    model_seed = support_argument(argc, argv, "--seed", support_seed(1));
    const uint64_t usual = support_scaled_instrumented(1000000, 200000, 4000);
    model_operations = support_argument(argc, argv, "--operations", usual);
    return test_run(1, argv, all, 5,
                    "answers_are_the_same_whatever_kernels_and_io_a_process_has, "
                    "answers_equal_a_flat_array_without_threads, "
                    "answers_equal_a_flat_array_with_two_threads, "
                    "answers_equal_a_flat_array_on_the_real_file_system, "
                    "answers_equal_a_flat_array_without_files");
}
