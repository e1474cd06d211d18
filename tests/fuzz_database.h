/* fuzz_database.h: the real databases that seeds are made of, and everything that is asked of one
 * that was opened from damaged files. */
#ifndef OMENDB_FUZZ_DATABASE_H
#define OMENDB_FUZZ_DATABASE_H

#include "fuzz.h"

#define FUZZ_BASES    6
#define FUZZ_DIM_MAX  64
#define FUZZ_ASK_MAX  6   /* collections that are looked at */
#define FUZZ_SCAN_MAX 400 /* records of a scan */
#define FUZZ_HITS     10
#define FUZZ_WIDE_DIM 4096 /* wider ones are not written to: each memtable of theirs takes long */

static inline void fuzz_must(int code)
{
    FUZZ_CHECK(code == OMENDB_OK);
}

/* dim small integers, not all 0, that `value` determines. */
static inline void fuzz_vector(uint64_t value, uint32_t dim, float *vector)
{
    uint64_t chance = value;
    for (uint32_t i = 0; i < dim; i++)
        vector[i] = (float)((int)fuzz_below(&chance, 15) - 7);
    vector[0] = vector[0] == 0.0f ? 1.0f : vector[0];
}

static inline int fuzz_put(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                           uint64_t value, uint32_t dim)
{
    float *vector = fuzz_memory(NULL, dim * sizeof *vector);
    omendb_record record = OMENDB_RECORD_INIT;
    fuzz_vector(value, dim, vector);
    record.id = id;
    record.vector = vector;
    int code = omendb_put(collection, txn, &record, NULL);
    free(vector);
    return code;
}

/* ------------------------------------------------------------------------------------------------
 * bases */

/* `count` records whose ids are not in the order of the rows, unless stride is 1. */
static inline void fuzz_fill(omendb_collection *collection, uint32_t dim, uint64_t first,
                             uint64_t count, uint64_t stride)
{
    float vectors[100 * FUZZ_DIM_MAX];
    uint64_t ids[100];
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = first + i * stride % count;
        fuzz_vector(first * 100 + i, dim, vectors + i * dim);
    }
    fuzz_must(omendb_put_batch(collection, NULL, (size_t)count, ids, vectors, OMENDB_F32, NULL));
}

static inline omendb_collection *fuzz_create(omendb *db, const char *name, uint32_t dim,
                                             uint32_t metric, uint32_t scalar)
{
    omendb_collection *collection = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = dim;
    schema.metric = metric;
    schema.scalar = scalar;
    schema.M = 2;
    schema.ef_construction = 8;
    schema.ef = 4;
    fuzz_must(omendb_collection_create(db, name, &schema, &collection));
    return collection;
}

/* Two segments of a collection, one shared with another, tombstones, and a log with every kind of
 * change. */
static inline void fuzz_base_busy(omendb *db)
{
    omendb_collection *a = fuzz_create(db, "a", 3, OMENDB_L2, OMENDB_F32),
                      *b = fuzz_create(db, "b", 5, OMENDB_L2, OMENDB_I8);
    omendb_txn *txn = NULL;
    fuzz_fill(a, 3, 0, 70, 11);
    fuzz_must(omendb_optimize(db, NULL, NULL));
    fuzz_fill(a, 3, 60, 20, 1);
    fuzz_fill(b, 5, 0, 9, 1);
    fuzz_must(omendb_checkpoint(db));
    fuzz_must(omendb_delete(a, NULL, 3));
    fuzz_must(omendb_checkpoint(db));
    fuzz_must(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn));
    fuzz_must(fuzz_put(a, txn, 500, 1, 3));
    fuzz_must(fuzz_put(b, txn, 501, 2, 5));
    fuzz_must(omendb_delete(a, txn, 5));
    fuzz_must(omendb_txn_commit(txn));
    omendb_collection *c = fuzz_create(db, "c", 9, OMENDB_HAMMING, OMENDB_B1);
    fuzz_fill(c, 9, 0, 3, 1);
    fuzz_must(omendb_collection_drop(db, "b"));
    fuzz_fill(a, 3, 200, 2, 1);
    omendb_collection_close(a);
    omendb_collection_close(b);
    omendb_collection_close(c);
}

/* One segment that is walked over codes. */
static inline void fuzz_base_codes(omendb *db)
{
    omendb_collection *a = fuzz_create(db, "codes", 40, OMENDB_COSINE, OMENDB_F32);
    fuzz_fill(a, 40, 7, 60, 7);
    fuzz_must(omendb_optimize(db, NULL, NULL));
    fuzz_must(omendb_delete(a, NULL, 9));
    omendb_collection_close(a);
}

/* A pack of small collections of all types. */
static inline void fuzz_base_pack(omendb *db)
{
    for (uint32_t scalar = OMENDB_F32; scalar <= OMENDB_B1; scalar++) {
        char name[2] = {(char)('p' + scalar), 0};
        uint32_t metric = scalar == OMENDB_B1 ? OMENDB_HAMMING : scalar % 3;
        omendb_collection *made = fuzz_create(db, name, 6 + scalar, metric, scalar);
        fuzz_fill(made, 6 + scalar, 0, 20, scalar % 2 ? 1 : 3);
        omendb_collection_close(made);
    }
    fuzz_must(omendb_optimize(db, NULL, NULL));
}

/* A log and nothing else. */
static inline void fuzz_base_log(omendb *db)
{
    omendb_collection *a = fuzz_create(db, "log", 4, OMENDB_INNER_PRODUCT, OMENDB_F16);
    fuzz_fill(a, 4, 0, 40, 1);
    fuzz_fill(a, 4, 20, 5, 1);
    fuzz_must(omendb_delete(a, NULL, 30));
    fuzz_must(omendb_collection_drop(db, "log"));
    omendb_collection_close(a);
    a = fuzz_create(db, "log", 2, OMENDB_L2, OMENDB_U8);
    fuzz_fill(a, 2, 0, 4, 1);
    omendb_collection_close(a);
}

/* What a value says of key and metadata; the key has the id in it, so that no other record has it.
 * Some have neither. */
struct fuzz_document {
    char key[24], metadata[96];
};

static inline void fuzz_document(uint64_t id, uint64_t value, struct fuzz_document *document)
{
    memset(document, 0, sizeof *document);
    if (value % 3 != 0)
        snprintf(document->key, sizeof document->key, "%u-%u", (unsigned)id, (unsigned)value % 4);
    if (value % 5 != 0)
        snprintf(document->metadata, sizeof document->metadata,
                 "{\"a\":null,\"b\":true,\"n\":%u,\"r\":0.5,\"s\":\"%u\",\"t\":[\"x\",\"%u\"]}",
                 (unsigned)value, (unsigned)value % 7, (unsigned)value % 3);
}

/* Records [first, first + count) of values from `value` on, with what fuzz_document says. */
static inline int fuzz_write_documents(omendb_collection *collection, omendb_txn *txn, int adds,
                                       size_t count, const uint64_t *ids, const uint64_t *values,
                                       uint32_t dim)
{
    static float vectors[64 * FUZZ_DIM_MAX];
    static struct fuzz_document documents[64];
    omendb_record records[64];
    for (size_t i = 0; i < count; i++) {
        fuzz_document(ids[i], values[i], &documents[i]);
        fuzz_vector(values[i], dim, vectors + i * dim);
        records[i] = (omendb_record)OMENDB_RECORD_INIT;
        records[i].id = ids[i];
        records[i].vector = vectors + i * dim;
        records[i].key = documents[i].key[0] == '\0' ? NULL : documents[i].key;
        records[i].metadata = documents[i].metadata[0] == '\0' ? NULL : documents[i].metadata;
    }
    return adds ? omendb_add_records(collection, txn, count, records, NULL)
                : omendb_put_records(collection, txn, count, records, NULL);
}

static inline void fuzz_fill_documents(omendb_collection *collection, omendb_txn *txn,
                                       uint64_t first, size_t count, uint64_t value)
{
    uint64_t ids[64], values[64];
    for (size_t i = 0; i < count; i++) {
        ids[i] = first + i;
        values[i] = value + i;
    }
    fuzz_must(fuzz_write_documents(collection, txn, 0, count, ids, values, 3));
}

/* Limits and a declaration that its documents keep. */
static inline void fuzz_set(omendb_collection *collection, uint64_t records)
{
    omendb_limits limits = OMENDB_LIMITS_INIT;
    omendb_field fields[2] = {OMENDB_FIELD_INIT, OMENDB_FIELD_INIT};
    limits.records = records;
    limits.bytes = UINT64_C(1) << 30;
    fields[0].name = "more";
    fields[0].type = OMENDB_FIELD_TEXTS;
    fields[1].name = "unused";
    fields[1].type = OMENDB_FIELD_I64;
    fuzz_must(omendb_collection_set_limits(collection, &limits));
    fuzz_must(omendb_collection_declare(collection, records % 2 + 1, fields, 0));
}

/* Records with keys and metadata: in a merged segment, in one above it, in an overlay of each, and
 * in a log with every kind of change of them. */
static inline void fuzz_base_documents(omendb *db)
{
    omendb_collection *a = fuzz_create(db, "documents", 3, OMENDB_L2, OMENDB_F32);
    omendb_txn *txn = NULL;
    fuzz_fill_documents(a, NULL, 0, 40, 1);
    fuzz_set(a, 1000);
    fuzz_must(omendb_optimize(db, NULL, NULL));
    fuzz_fill_documents(a, NULL, 30, 20, 100);
    fuzz_must(omendb_checkpoint(db));
    fuzz_must(omendb_delete(a, NULL, 3));
    for (uint64_t id = 7; id < 50; id += 3)
        fuzz_must(omendb_update(a, NULL, id, "{\"n\":77,\"more\":[\"z\"]}"));
    fuzz_must(omendb_update(a, NULL, 26,
                            "{\"a\":null,\"b\":null,\"n\":null,\"r\":null,\"s\":null,\"t\":null}"));
    fuzz_must(omendb_checkpoint(db));
    fuzz_fill_documents(a, NULL, 45, 7, 200);
    fuzz_set(a, 1001);
    fuzz_must(omendb_update(a, NULL, 5, "{\"b\":null,\"more\":[\"y\"]}"));
    fuzz_must(omendb_delete_key(a, NULL, "1-2"));
    fuzz_must(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn));
    fuzz_fill_documents(a, txn, 60, 3, 301);
    fuzz_must(omendb_delete(a, txn, 6));
    fuzz_must(omendb_txn_prepare(txn, "waits"));
    omendb_collection_close(a);
}

/* A disk as a process that was killed left it; the last base is one that was closed empty. */
static inline void fuzz_make_base(size_t which, struct fuzz_disk *disk)
{
    static void (*const fill[FUZZ_BASES - 1])(omendb *) = {
        fuzz_base_busy, fuzz_base_codes, fuzz_base_pack, fuzz_base_log, fuzz_base_documents};
    struct fuzz_disk at_work;
    omendb *db = NULL;
    fuzz_disk_begin(&at_work);
    fuzz_must(fuzz_open(&at_work, OMENDB_IO_MAP, 0, &db));
    if (which < FUZZ_BASES - 1)
        fill[which](db);
    fuzz_disk_copy(disk, &at_work);
    fuzz_must(omendb_close(db));
    fuzz_disk_end(&at_work);
}

/* Made once; the caller must not change it. */
static inline const struct fuzz_disk *fuzz_base(size_t which)
{
    static struct fuzz_disk bases[FUZZ_BASES];
    static int made[FUZZ_BASES];
    which %= FUZZ_BASES;
    if (!made[which])
        fuzz_make_base(which, &bases[which]);
    made[which] = 1;
    return &bases[which];
}

/* The files of each base, of the kinds whose bit is set, as seeds; `choice` is added to what they
 * choose. */
static inline void fuzz_seed_bases(struct fuzz_seeds *seeds, unsigned kinds, unsigned choice)
{
    for (size_t i = 0; i < FUZZ_BASES; i++) {
        struct fuzz_files files;
        fuzz_files_of_disk(&files, fuzz_base(i), kinds);
        for (unsigned way = 0; way < 4 && files.count > 0; way++) {
            files.choice = (uint8_t)(way | (way & 1) << 5 | choice);
            fuzz_add_seed_of_files(seeds, &files);
        }
        fuzz_files_end(&files);
    }
}

/* ------------------------------------------------------------------------------------------------
 * questions */

static inline void fuzz_check_hits(size_t count, size_t k, const float *distances)
{
    FUZZ_CHECK(count <= k);
    for (size_t i = 1; i < count; i++)
        FUZZ_CHECK(!(distances[i] < distances[i - 1]));
}

static inline int fuzz_search(omendb_collection *collection, const omendb_query *query)
{
    uint64_t ids[FUZZ_HITS];
    float distances[FUZZ_HITS];
    size_t count = 0;
    int code = fuzz_sane(omendb_search(collection, NULL, query, ids, distances, &count));
    if (code == OMENDB_OK)
        fuzz_check_hits(count, query->k, distances);
    return code;
}

/* Of some records, and of the keys that they may have. */
static inline void fuzz_ask_documents(omendb_collection *collection)
{
    char key[OMENDB_KEY_MAX + 1], metadata[512];
    const char *const fields[] = {"n", "t"};
    uint64_t found = 0;
    size_t size = 0;
    for (uint64_t id = 0; id < 64; id += 3) {
        int code = fuzz_sane(omendb_get_key(collection, NULL, id, key, sizeof key, &size));
        FUZZ_CHECK(code != OMENDB_OK || size == strlen(key));
        if (code == OMENDB_OK && size != 0)
            fuzz_sane(omendb_find(collection, NULL, key, &found));
        fuzz_sane(omendb_get_metadata(collection, NULL, id, id % 2 ? fields : NULL, 2, metadata,
                                      sizeof metadata, &size));
        for (unsigned value = 0; value < 4; value++) {
            snprintf(key, sizeof key, "%u-%u", (unsigned)id, value);
            fuzz_sane(omendb_find(collection, NULL, key, &found));
        }
    }
}

/* Conditions on columns, ids and keys, which a segment that lies has of anything: alone, and taken
 * together. */
static inline void fuzz_ask_filters(omendb *db, omendb_collection *collection)
{
    static const char *const texts[] = {"b = true",
                                        "n > 3 AND b = true",
                                        "s IN ('1', '4') OR t = 'x'",
                                        "NOT (s = '2') AND n < 99",
                                        "t = 'x' AND t = '1' AND more IS NULL",
                                        "_key IN ('3-1', '7-0') OR _id BETWEEN 2 AND 5",
                                        "NOT (_id IN (1, 2)) AND b = true"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        omendb_filter *filter = NULL;
        omendb_rows *rows = NULL;
        uint64_t count = 0;
        if (fuzz_sane(omendb_filter_compile(db, texts[i], &filter)) != OMENDB_OK)
            continue;
        fuzz_sane(omendb_count_matching(collection, NULL, filter, NULL, NULL, &count));
        fuzz_sane(omendb_scan_matching(collection, NULL, filter, 0, UINT64_MAX - 1, &rows));
        while (rows != NULL &&
               fuzz_sane(omendb_rows_next(rows, NULL, OMENDB_F32, NULL)) == OMENDB_OK)
            count--;
        omendb_rows_close(rows);
        omendb_filter_free(filter);
    }
}

/* With so small an effort that graphs of 16 rows are walked. */
static inline void fuzz_ask_searches(omendb_collection *collection, const float *vector)
{
    omendb_query query = OMENDB_QUERY_INIT;
    query.vector = vector;
    query.k = 1;
    query.ef = 1;
    fuzz_search(collection, &query);
    query.k = 3;
    query.ef = 6;
    fuzz_search(collection, &query);
    query.ef = 0;
    query.stretch = 1.5f;
    fuzz_search(collection, &query);
    query.stretch = 0.0f;
    query.recall = 0.9f;
    query.k = 2;
    fuzz_search(collection, &query);
    query.recall = 0.0f;
    query.exact = 1;
    query.k = FUZZ_HITS;
    query.use_radius = 1;
    query.radius = 50.0f;
    fuzz_search(collection, &query);
    query.vector = NULL;
    query.use_radius = 0;
    query.radius = 0.0f;
    query.id = 7;
    fuzz_search(collection, &query);
}

static inline void fuzz_ask_records(omendb_collection *collection, float *vector)
{
    omendb_rows *rows = NULL;
    uint64_t id = 0, before = 0, count = 0, seen = 0;
    int code = fuzz_sane(omendb_count(collection, NULL, &count));
    code =
        code == OMENDB_OK ? fuzz_sane(omendb_scan(collection, NULL, 0, UINT64_MAX, &rows)) : code;
    while (code == OMENDB_OK && seen < FUZZ_SCAN_MAX) {
        code = fuzz_sane(omendb_rows_next(rows, &id, OMENDB_F32, vector));
        FUZZ_CHECK(code != OMENDB_OK || seen == 0 || before <= id);
        before = id;
        seen += code == OMENDB_OK;
    }
    omendb_rows_close(rows);
    for (uint64_t i = 0; i < 4; i++)
        fuzz_sane(omendb_get(collection, NULL, i * 3, OMENDB_F32, vector));
}

static inline void fuzz_write(omendb_collection *collection, uint32_t dim)
{
    uint64_t ids[3] = {1, 4, 60};
    fuzz_sane(fuzz_put(collection, NULL, 3, 11, dim));
    fuzz_sane(fuzz_put(collection, NULL, OMENDB_ID_AUTO, 12, dim));
    fuzz_sane(omendb_delete_batch(collection, NULL, 3, ids, NULL));
    fuzz_sane(omendb_update(collection, NULL, 6, "{\"n\":null,\"new\":1}"));
    fuzz_sane(omendb_delete_key(collection, NULL, "9-2"));
    if (dim <= FUZZ_DIM_MAX)
        fuzz_sane(fuzz_write_documents(collection, NULL, 0, 3, ids, ids, dim));
}

static inline void fuzz_ask_settings(omendb_collection *collection)
{
    char name[OMENDB_FIELD_MAX + 1];
    omendb_limits limits = OMENDB_LIMITS_INIT;
    omendb_field field = OMENDB_FIELD_INIT;
    fuzz_must(omendb_collection_get_limits(collection, &limits));
    for (size_t i = 0;
         omendb_collection_field(collection, i, &field, name, sizeof name) == OMENDB_OK; i++)
        FUZZ_CHECK(name[0] != 0 && field.type <= OMENDB_FIELD_TEXTS);
}

static inline void fuzz_ask_collection(omendb *db, const char *name, int may_write)
{
    omendb_collection *collection = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    if (fuzz_sane(omendb_collection_open(db, name, NULL, &collection)) != OMENDB_OK)
        return;
    fuzz_must(omendb_collection_schema(collection, &schema));
    fuzz_sane(omendb_collection_get_stats(collection, &stats));
    fuzz_ask_settings(collection);
    float *vector = fuzz_memory(NULL, schema.dim * sizeof *vector);
    fuzz_vector(5, schema.dim, vector);
    fuzz_ask_searches(collection, vector);
    fuzz_ask_records(collection, vector);
    fuzz_ask_documents(collection);
    fuzz_ask_filters(db, collection);
    if (may_write && schema.dim <= FUZZ_WIDE_DIM)
        fuzz_write(collection, schema.dim);
    free(vector);
    omendb_collection_close(collection);
}

/* A collection that is new, or there from damage. */
static inline void fuzz_write_new(omendb *db)
{
    omendb_collection *collection = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = 2;
    if (fuzz_sane(omendb_collection_create(db, "new", &schema, &collection)) == OMENDB_OK)
        fuzz_sane(fuzz_put(collection, NULL, 1, 1, 2));
    omendb_collection_close(collection);
}

/* Asks everything of the first collections, and with may_write changes each. */
static inline void fuzz_ask(omendb *db, int may_write)
{
    char name[256];
    omendb_stats stats = OMENDB_STATS_INIT;
    for (size_t i = 0; i < FUZZ_ASK_MAX; i++) {
        if (omendb_collection_name(db, i, name, sizeof name) != OMENDB_OK)
            break;
        fuzz_ask_collection(db, name, may_write);
    }
    if (may_write)
        fuzz_write_new(db);
    fuzz_sane(omendb_get_stats(db, &stats));
}

static void fuzz_count_line(void *context, const char *line)
{
    FUZZ_CHECK(line[0] != '\0');
    ++*(uint64_t *)context;
}

static inline uint64_t fuzz_check_database(omendb *db)
{
    uint64_t lines = 0, problems = 0;
    fuzz_sane(omendb_check(db, fuzz_count_line, &lines, &problems));
    FUZZ_CHECK(lines == problems);
    return problems;
}

#endif
