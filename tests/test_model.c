/* test_model.c: random operations against a flat array with versions.
 *
 * The model is a list of rows (id, value, first commit, last commit) for each collection, and
 * nothing else; whatever the database answers is compared with a walk over that list: what exists,
 * what exists for a snapshot, what a transaction sees of itself, what is nearest. Exact answers
 * must be equal, approximate ones sorted, unique, visible, as many as asked for, with the right
 * distances, and of a recall above a floor.
 *
 * Phases: in memory on the file system of crash_vfs.h without threads (repeatable), with two, on
 * the real file system, and ":memory:".
 *
 *     test_model                          about 100,000 operations
 *     test_model --operations N --seed S  a campaign; a failure prints its seed */
#define _POSIX_C_SOURCE 200809L

#include <math.h>

#include "crash_vfs.h"
#include "support.h"
#include "test.h"

#define MODEL_COLLECTIONS 5
#define MODEL_IDS         400
#define MODEL_SNAPSHOTS   5
#define MODEL_K_MAX       30
#define MODEL_NEVER       UINT64_MAX

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
    uint64_t id, value, begin, end;
};

struct model_collection {
    struct model_row *rows;
    size_t count, capacity;
    uint64_t changed[MODEL_IDS]; /* commit of the last change */
};

/* Own changes of the open writing transaction: value, 0 deleted, MODEL_NEVER untouched. */
struct model_writes {
    uint64_t value[MODEL_COLLECTIONS][MODEL_IDS];
    int undone[MODEL_COLLECTIONS]
              [MODEL_IDS]; /* added and deleted again: nothing is left to conflict */
    uint64_t snapshot;
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
    uint64_t approximate_wanted, approximate_found;
    uint64_t done, conflicts, commits;
    int bad;
    const char *doing;
};

/* What is read: a snapshot's commit, or the newest with the writes of a transaction on top. */
struct model_reader {
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
    support_vector(value, kind->dim, vector);
    for (uint32_t i = 0; kind->metric == OMENDB_HAMMING && i < kind->dim; i++)
        vector[i] = vector[i] > 0.0f ? 1.0f : 0.0f;
}

static struct model_row *model_live(struct model *model, int c, uint64_t id)
{
    struct model_collection *collection = &model->collections[c];
    for (size_t i = collection->count; i-- > 0;)
        if (collection->rows[i].id == id && collection->rows[i].end == MODEL_NEVER)
            return &collection->rows[i];
    return NULL;
}

/* Value of the id for this reader, 0: absent. */
static uint64_t model_read(const struct model *model, int c, uint64_t id,
                           const struct model_reader *reader)
{
    const struct model_collection *collection = &model->collections[c];
    if (reader->writes != NULL && reader->writes->value[c][id] != MODEL_NEVER)
        return reader->writes->value[c][id];
    for (size_t i = collection->count; i-- > 0;) {
        const struct model_row *row = &collection->rows[i];
        if (row->id == id && row->begin <= reader->commit && row->end > reader->commit)
            return row->value;
    }
    return 0;
}

static void model_apply_delete(struct model *model, int c, uint64_t id)
{
    struct model_row *row = model_live(model, c, id);
    if (row == NULL)
        return;
    row->end = model->commit;
    model->collections[c].changed[id] = model->commit;
}

static void model_apply_put(struct model *model, int c, uint64_t id, uint64_t value)
{
    struct model_collection *collection = &model->collections[c];
    model_apply_delete(model, c, id);
    if (collection->count == collection->capacity) {
        collection->capacity = collection->capacity * 2 + 64;
        collection->rows =
            crash_memory(collection->rows, collection->capacity * sizeof *collection->rows);
    }
    collection->rows[collection->count++] =
        (struct model_row){id, value, model->commit, MODEL_NEVER};
    collection->changed[id] = model->commit;
}

/* Rows that nobody can see any more. */
static void model_forget(struct model *model)
{
    uint64_t oldest = model->txn != NULL ? model->writes.snapshot : model->commit;
    for (int i = 0; i < MODEL_SNAPSHOTS; i++)
        if (model->snapshots[i] != NULL && model->snapshot_commits[i] < oldest)
            oldest = model->snapshot_commits[i];
    for (int c = 0; c < MODEL_COLLECTIONS; c++) {
        struct model_collection *collection = &model->collections[c];
        size_t kept = 0;
        for (size_t i = 0; i < collection->count; i++)
            if (collection->rows[i].end > oldest)
                collection->rows[kept++] = collection->rows[i];
        collection->count = kept;
    }
}

/* ------------------------------------------------------------------------------------------------
 * opening */

static int model_open(struct model *model)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.threads = model->threads;
    options.vfs = model->fs == NULL ? NULL : &model->fs->vfs;
    options.wal_limit = 64 * 1024;
    options.tail_limit = 8 * 1024;
    options.io = support_below(&model->random, 3) == 0 ? OMENDB_IO_PREAD : OMENDB_IO_MAP;
    options.sync = model->fs == NULL ? OMENDB_SYNC_NORMAL : OMENDB_SYNC_FULL;
    if (!model_expect_code(model, omendb_open(model->path, &options, &model->db), OMENDB_OK))
        return 0;
    for (int c = 0; c < MODEL_COLLECTIONS && !model->bad; c++) {
        schema.dim = model_kinds[c].dim;
        schema.metric = model_kinds[c].metric;
        schema.scalar = model_kinds[c].scalar;
        schema.M = 8;
        schema.ef_construction = 40;
        model_expect_code(model,
                          omendb_collection_open_or_create(model->db, model_kinds[c].name, &schema,
                                                           &model->handles[c]),
                          OMENDB_OK);
    }
    return !model->bad;
}

static void model_close(struct model *model)
{
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
    const uint64_t dice = support_below(&model->random, 4);
    const uint64_t slot = support_below(&model->random, MODEL_SNAPSHOTS);
    struct model_reader reader = {NULL, model->commit, NULL};
    if (dice == 0 && model->snapshots[slot] != NULL) {
        reader.txn = model->snapshots[slot];
        reader.commit = model->snapshot_commits[slot];
    } else if (dice == 1 && model->txn != NULL) {
        reader.txn = model->txn;
        reader.commit = model->writes.snapshot;
        reader.writes = &model->writes;
    }
    return reader;
}

/* Reads a stored vector as f32, or for bits as bytes that are then unpacked. */
static int model_get(struct model *model, int c, omendb_txn *txn, uint64_t id, float *vector)
{
    const struct model_kind *kind = &model_kinds[c];
    uint8_t bits[SUPPORT_DIM_MAX / 8];
    int status;
    if (kind->scalar != OMENDB_B1)
        return omendb_get(model->handles[c], txn, id, OMENDB_F32, vector);
    status = omendb_get(model->handles[c], txn, id, OMENDB_B1, bits);
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

static void model_do_get(struct model *model, int c)
{
    const struct model_reader reader = model_reader(model);
    const uint64_t id = support_below(&model->random, MODEL_IDS);
    const uint64_t value = model_read(model, c, id, &reader);
    float vector[SUPPORT_DIM_MAX], wanted[SUPPORT_DIM_MAX];
    model->doing = reader.writes ? "get in a transaction"
                   : reader.txn  ? "get in a snapshot"
                                 : "get";
    const int status = model_get(model, c, reader.txn, id, vector);
    if (!model_expect_code(model, status, value == 0 ? OMENDB_NOTFOUND : OMENDB_OK) || value == 0)
        return;
    model_vector(&model_kinds[c], value, wanted);
    model_expect(model, model_is_close(&model_kinds[c], vector, wanted), "another vector");
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
    if (model_expect_code(model, omendb_count(model->handles[c], reader.txn, &count), OMENDB_OK))
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
    if (!model_expect_code(model, omendb_scan(model->handles[c], reader.txn, id, to, &rows),
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
        /* Of equal distances, which straddle the end, any may be given. */
        model_expect(model,
                     kind->tolerance > 0.0f || ids[i] == question->hits[i].id ||
                         distances[i] == question->hits[wanted - 1].distance,
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
    const int status = omendb_search(model->handles[c], question.reader.txn, &question.query, ids,
                                     distances, &count);
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
    const int status = omendb_search(model->handles[c], question.reader.txn, &question.query, ids,
                                     distances, &count);
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
    const int status = omendb_search_batch(model->handles[c], question.reader.txn, &question.query,
                                           vectors, 3, ids, distances, counts);
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

/* ------------------------------------------------------------------------------------------------
 * writing */

static int model_write(struct model *model, int c, omendb_txn *txn, int add, size_t count,
                       const uint64_t *ids, const uint64_t *values)
{
    const struct model_kind *kind = &model_kinds[c];
    float vectors[20 * SUPPORT_DIM_MAX];
    omendb_record record = OMENDB_RECORD_INIT;
    for (size_t i = 0; i < count; i++)
        model_vector(kind, values[i], vectors + i * kind->dim);
    record.id = ids[0];
    record.vector = vectors;
    if (count == 1)
        return add ? omendb_add(model->handles[c], txn, &record, NULL)
                   : omendb_put(model->handles[c], txn, &record, NULL);
    return add ? omendb_add_batch(model->handles[c], txn, count, ids, vectors, OMENDB_F32, NULL)
               : omendb_put_batch(model->handles[c], txn, count, ids, vectors, OMENDB_F32, NULL);
}

/* What writing these ids in a transaction has to return, by the changes of others. */
static int model_has_conflict(const struct model *model, int c, size_t count, const uint64_t *ids)
{
    for (size_t i = 0; i < count; i++)
        if (model->collections[c].changed[ids[i]] > model->writes.snapshot)
            return 1;
    return 0;
}

static void model_do_write(struct model *model, int c, int add, size_t count)
{
    uint64_t ids[20], values[20];
    struct model_reader reader = {NULL, model->commit, NULL};
    int taken = 0, status;
    const int in_txn = model->txn != NULL && support_below(&model->random, 3) == 0;
    if (in_txn) {
        reader = (struct model_reader){model->txn, model->writes.snapshot, &model->writes};
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
    const struct model_reader before = {NULL, model->writes.snapshot, NULL};
    if (!in_txn) {
        model_apply_delete(model, c, id);
        return;
    }
    model->writes.undone[c][id] = model_read(model, c, id, &before) == 0;
    model->writes.value[c][id] = 0;
}

static void model_do_delete(struct model *model, int c, size_t count)
{
    uint64_t ids[20];
    struct model_reader reader = {NULL, model->commit, NULL};
    size_t existing = 0, deleted = 0;
    const int in_txn = model->txn != NULL && support_below(&model->random, 3) == 0;
    int status;
    if (in_txn)
        reader = (struct model_reader){model->txn, model->writes.snapshot, &model->writes};
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
                model->collections[c].changed[id] <= model->writes.snapshot)
                continue;
            if (!model->writes.undone[c][id] || model->writes.value[c][id] != 0)
                return 1;
            answer = -1;
        }
    return answer;
}

static void model_do_end(struct model *model)
{
    const int conflicts = model_conflicts(model);
    int status;
    model->doing = "commit of a transaction";
    if (model->txn == NULL)
        return;
    if (support_below(&model->random, 4) == 0) {
        omendb_txn_rollback(model->txn);
        model->txn = NULL;
        return;
    }
    status = omendb_txn_commit(model->txn);
    model->txn = NULL;
    if (conflicts >= 0)
        model_expect_code(model, status, conflicts ? OMENDB_CONFLICT : OMENDB_OK);
    model->conflicts += status == OMENDB_CONFLICT;
    if (status != OMENDB_OK)
        return;
    model->commits++;
    model->commit++;
    for (int c = 0; c < MODEL_COLLECTIONS; c++)
        for (uint64_t id = 0; id < MODEL_IDS; id++) {
            if (model->writes.value[c][id] == MODEL_NEVER)
                continue;
            if (model->writes.value[c][id] == 0)
                model_apply_delete(model, c, id);
            else
                model_apply_put(model, c, id, model->writes.value[c][id]);
        }
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

static void model_do_maintenance(struct model *model)
{
    const uint64_t dice = support_below(&model->random, 20);
    model->doing = "maintenance";
    if (dice < 9) {
        model->doing = "checkpoint";
        model_expect_code(model, omendb_checkpoint(model->db), OMENDB_OK);
    } else if (dice < 11) {
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
    } else {
        model->doing = "check";
        model_expect_code(model, support_check(model->db), OMENDB_OK);
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
        model_do_delete(model, c, 1);
    else if (dice < 420)
        model_do_delete(model, c, many);
    else if (dice < 600)
        model_do_get(model, c);
    else if (dice < 640)
        model_do_count(model, c);
    else if (dice < 680)
        model_do_scan(model, c);
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
    else if (dice < 993)
        model_do_end(model);
    else
        model_do_maintenance(model);
}

static uint64_t model_operations = 100000, model_seed = 1;

static void model_run(int threads, int kind, double share)
{
    static struct model model;
    const uint64_t operations = (uint64_t)((double)model_operations * share);
    const uint64_t seed = model_seed + (uint64_t)kind * 1000 + (uint64_t)threads;
    memset(&model, 0, sizeof model);
    model.random.state = seed;
    model.threads = threads;
    model.in_memory = kind == 2;
    model.fs = kind == 0 ? crash_fs_create(0) : NULL;
    model.doing = "open";
    snprintf(model.path, sizeof model.path, "%s",
             kind == 0   ? "/db"
             : kind == 1 ? support_path("model")
                         : ":memory:");
    model_open(&model);
    for (; model.done < operations && !model.bad; model.done++)
        model_step(&model);
    const double recall = model.approximate_wanted == 0
                              ? 1.0
                              : (double)model.approximate_found / (double)model.approximate_wanted;
    if (!model.bad)
        model.doing = "last close";
    model_close(&model);
    printf("  %llu operations, seed %llu, %d threads: recall %.4f, %llu commits of transactions, "
           "%llu conflicts%s\n",
           (unsigned long long)model.done, (unsigned long long)model_seed, threads, recall,
           (unsigned long long)model.commits, (unsigned long long)model.conflicts,
           model.bad ? "  FAILED" : "");
    crash_fs_destroy(model.fs);
    for (int c = 0; c < MODEL_COLLECTIONS; c++)
        free(model.collections[c].rows);
    CHECK(!model.bad);
    CHECK(recall >= 0.95);
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
    model_run(2, 1, 0.1);
}
TEST(answers_equal_a_flat_array_without_files)
{
    model_run(0, 2, 0.1);
}

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {answers_equal_a_flat_array_without_threads,
                                        answers_equal_a_flat_array_with_two_threads,
                                        answers_equal_a_flat_array_on_the_real_file_system,
                                        answers_equal_a_flat_array_without_files};
    model_seed = support_argument(argc, argv, "--seed", support_seed(1));
    model_operations = support_argument(argc, argv, "--operations", support_scaled(100000, 4000));
    return test_run(1, argv, all, 4,
                    "answers_equal_a_flat_array_without_threads, "
                    "answers_equal_a_flat_array_with_two_threads, "
                    "answers_equal_a_flat_array_on_the_real_file_system, "
                    "answers_equal_a_flat_array_without_files");
}
