/* generate.c: writes the golden databases anew: `make golden`, or `generate FOLDER`.
 *
 *   format-N/          a database of the present format N with every kind of file and section, as a
 *                      process leaves it that is killed
 *   format-N.txt       what it holds, written from what was put in, not from what was read back
 *   future-version/    a database of a format version that is not there yet
 *   future-refuse/     one with an unknown feature that forbids opening
 *   future-read-only/  one with an unknown feature that forbids writing
 *
 * Each later version must read the folders of all formats; they are made once, when a format is
 * settled. White-box, as a curve of recall of so small a collection has to be made by hand, and as
 * the headers of the future are patched. */
#define _POSIX_C_SOURCE 200809L

#include "omendb.c"

#include "../support.h"

#define GOLDEN_DIM   5
#define GOLDEN_GRAPH "graph"
#define GOLDEN_ROWS  100 /* of "graph": its file has one block of data */
#define GOLDEN_MAX   512

static void golden_must(int code)
{
    if (code == OMENDB_OK)
        return;
    fprintf(stderr, "golden: %s: %s\n", omendb_strerror(code), omendb_errmsg());
    exit(1);
}

static void golden_must_not_fail(int failed, const char *what)
{
    if (!failed)
        return;
    perror(what);
    exit(1);
}

/* ------------------------------------------------------------------ what is put in */

#define GOLDEN_NONE "\"none\":null,"

struct golden_collection {
    omendb_collection *handle;
    char name[64];
    omendb_schema schema;
    uint64_t next_id;
    uint64_t values[GOLDEN_MAX];  /* by id: what gave the vector; 0: no record */
    uint64_t updated[GOLDEN_MAX]; /* what gave metadata in place of those; 0: nothing */
    int documented;               /* 1: its records have keys and metadata */
    uint64_t settings; /* that limits and declared fields follow from; 0: there are none */
};

static struct golden_collection golden_all[32];
static size_t golden_count;

/* Every stored type holds these numbers, times the scale. */
static void golden_vector(const struct golden_collection *collection, uint64_t value, float *vector)
{
    support_vector(value, collection->schema.dim, vector);
    for (uint32_t i = 0; i < collection->schema.dim; i++) {
        if (collection->schema.scalar == OMENDB_U8)
            vector[i] += 8.0f;
        if (collection->schema.scalar == OMENDB_B1)
            vector[i] = vector[i] > 0.0f ? 1.0f : 0.0f;
    }
}

/* Key and metadata of a record, each of which some have; in the order and form in which metadata is
 * read back. none: a field that a merge patch cannot give. */
static void golden_document(uint64_t id, uint64_t value, const char *none, char key[64],
                            char metadata[256])
{
    key[0] = metadata[0] = 0;
    if (id % 3 != 0)
        snprintf(key, 64, "key \xc3\xa9 of %llu", (unsigned long long)id);
    if (id % 5 != 0)
        snprintf(metadata, 256,
                 "{\"array\":[\"a\",\"%llu\"],\"flag\":%s,%s\"real\":%llu.5,"
                 "\"text\":\"t%llu\",\"whole\":%llu}",
                 (unsigned long long)(value % 4), value % 2 ? "true" : "false", none,
                 (unsigned long long)(value % 100), (unsigned long long)(value % 7),
                 (unsigned long long)value);
}

static struct golden_collection *golden_create(omendb *db, const char *name, omendb_schema *schema)
{
    struct golden_collection *made = &golden_all[golden_count++];
    snprintf(made->name, sizeof made->name, "%s", name);
    golden_must(omendb_collection_create(db, name, schema, &made->handle));
    omendb_schema_init(&made->schema);
    golden_must(omendb_collection_schema(made->handle, &made->schema));
    return made;
}

static void golden_put(struct golden_collection *collection, omendb_txn *txn, uint64_t id,
                       uint64_t value)
{
    char key[64], metadata[256];
    float vector[SUPPORT_DIM_MAX];
    omendb_record record = OMENDB_RECORD_INIT;
    golden_vector(collection, value, vector);
    record.id = id;
    record.vector = vector;
    if (collection->documented) {
        golden_document(id, value, GOLDEN_NONE, key, metadata);
        record.key = key[0] == 0 ? NULL : key;
        record.metadata = metadata[0] == 0 ? NULL : metadata;
    }
    golden_must(omendb_put(collection->handle, txn, &record, NULL));
    collection->values[id] = value;
    collection->updated[id] = 0;
    collection->next_id = id >= collection->next_id ? id + 1 : collection->next_id;
}

static void golden_update(struct golden_collection *collection, uint64_t id, uint64_t value)
{
    char key[64], metadata[256];
    golden_document(id, value, GOLDEN_NONE, key, metadata);
    golden_must(omendb_update(collection->handle, NULL, id, metadata));
    collection->updated[id] = value;
}

static void golden_delete(struct golden_collection *collection, omendb_txn *txn, uint64_t id)
{
    golden_must(omendb_delete(collection->handle, txn, id));
    collection->values[id] = 0;
}

/* Ids in an order that is not that of the rows, in one commit. */
static void golden_fill(struct golden_collection *collection, uint64_t count)
{
    static float vectors[GOLDEN_MAX * SUPPORT_DIM_MAX];
    uint64_t ids[GOLDEN_MAX];
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = (i * 7 + 1) % GOLDEN_MAX;
        collection->values[ids[i]] = 1000 + ids[i];
        collection->next_id = ids[i] >= collection->next_id ? ids[i] + 1 : collection->next_id;
        golden_vector(collection, 1000 + ids[i], vectors + i * collection->schema.dim);
    }
    golden_must(
        omendb_add_batch(collection->handle, NULL, (size_t)count, ids, vectors, OMENDB_F32, NULL));
}

/* ------------------------------------------------------------------ the steps */

/* In a file of its own, with a graph over codes. */
static struct golden_collection *golden_make_graph(omendb *db)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = 12; /* the least of which codes are smaller than the vectors is 9 */
    schema.M = 3;
    schema.ef_construction = 20;
    schema.ef = 30;
    schema.seed = 9;
    struct golden_collection *graph = golden_create(db, GOLDEN_GRAPH, &schema);
    golden_fill(graph, GOLDEN_ROWS);
    golden_must(omendb_optimize(db, NULL, NULL));
    return graph;
}

/* One collection of each stored type and metric. */
static void golden_make_types(omendb *db)
{
    for (int scalar = OMENDB_F32; scalar <= OMENDB_B1; scalar++) {
        for (int metric = OMENDB_L2; metric <= OMENDB_HAMMING; metric++) {
            char name[64];
            omendb_schema schema = OMENDB_SCHEMA_INIT;
            if ((scalar == OMENDB_B1) != (metric == OMENDB_HAMMING))
                continue;
            schema.dim = scalar == OMENDB_B1 ? 19 : GOLDEN_DIM;
            schema.scalar = (uint32_t)scalar;
            schema.metric = (uint32_t)metric;
            schema.M = 4;
            schema.scale = scalar == OMENDB_I8 || scalar == OMENDB_U8 ? 2.0f : 0.0f;
            snprintf(name, sizeof name, "%s-%s", omendb_scalar_name(scalar),
                     omendb_metric_name(metric));
            golden_fill(golden_create(db, name, &schema), 6);
        }
    }
}

/* With keys and metadata. */
static struct golden_collection *golden_make_documents(omendb *db)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = 2;
    struct golden_collection *made = golden_create(db, "documents", &schema);
    made->documented = 1;
    for (uint64_t id = 0; id < 24; id++)
        golden_put(made, NULL, id, 2000 + id);
    return made;
}

static void golden_add_document(struct golden_collection *collection, uint64_t id, uint64_t value)
{
    char key[64], metadata[256];
    float vector[SUPPORT_DIM_MAX];
    omendb_record record = OMENDB_RECORD_INIT;
    golden_vector(collection, value, vector);
    golden_document(id, value, GOLDEN_NONE, key, metadata);
    record.id = id;
    record.vector = vector;
    record.key = key;
    record.metadata = metadata;
    golden_must(omendb_add(collection->handle, NULL, &record, NULL));
    collection->values[id] = value;
    collection->next_id = id >= collection->next_id ? id + 1 : collection->next_id;
}

/* What omendb_calibrate keeps only for larger collections. */
static void golden_make_curve(omendb *db, struct golden_collection *graph)
{
    static const struct calibration curve = {.rows = GOLDEN_ROWS,
                                             .queries = 100,
                                             .all_rows = GOLDEN_ROWS,
                                             .count = 3,
                                             .entries = {{10, 20, 0.0f, 0.9f, 0.88f, 40},
                                                         {10, 60, 0.0f, 0.99f, 0.98f, 90},
                                                         {10, 200, 1.2f, 0.95f, 0.93f, 50}}};
    struct collection *collection = graph->handle->collection;
    struct calibration *made = memory_alloc(&db->memory, sizeof *made);
    golden_must_not_fail(made == NULL || !calibration_is_legal(&curve), "the curve");
    *made = curve;
    atomic_store(&collection->calibration, made);
}

/* So wide that they stand in no record's way. */
static void golden_set(struct golden_collection *collection, uint64_t settings)
{
    omendb_limits limits = OMENDB_LIMITS_INIT;
    omendb_field fields[2] = {OMENDB_FIELD_INIT, OMENDB_FIELD_INIT};
    limits.records = 1000 + settings;
    limits.bytes = 1000000 + settings;
    limits.queries_per_second = 2000000 + settings;
    limits.writes_per_second = 3000000 + settings;
    fields[0].name = "whole";
    fields[0].type = OMENDB_FIELD_I64;
    fields[1].name = "array";
    fields[1].type = OMENDB_FIELD_TEXTS;
    golden_must(omendb_collection_set_limits(collection->handle, &limits));
    golden_must(omendb_collection_declare(collection->handle, 2, fields, 0));
    collection->settings = settings;
}

static void golden_make_log(omendb *db)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_txn *txn = NULL;
    schema.dim = 3;
    schema.metric = OMENDB_COSINE;
    struct golden_collection *late = golden_create(db, "late \xc3\xa9", &schema);
    golden_fill(late, 9);
    golden_put(late, NULL, 8, 77);
    golden_set(late, 2);
    struct golden_collection *gone = golden_create(db, "gone", &schema);
    golden_put(gone, NULL, 1, 5);
    omendb_collection_close(gone->handle);
    golden_must(omendb_collection_drop(db, "gone"));
    golden_count--;
    golden_must(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn));
    golden_put(&golden_all[0], txn, 8, 5000);   /* in place of one in a segment */
    golden_put(&golden_all[0], txn, 511, 5001); /* new */
    golden_delete(&golden_all[0], txn, 15);
    golden_delete(&golden_all[1], txn, 22);
    golden_put(&golden_all[2], txn, 100, 5002);
    golden_must(omendb_txn_commit(txn));
}

/* What it is to put and to delete in the second collection; value 0: it puts nothing. */
static void golden_prepare(omendb *db, const char *name, uint64_t put, uint64_t removed,
                           uint64_t value)
{
    struct golden_collection changed = golden_all[1];
    omendb_txn *txn = NULL;
    golden_must(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn));
    if (value != 0)
        golden_put(&changed, txn, put, value);
    golden_delete(&changed, txn, removed);
    golden_must(omendb_txn_prepare(txn, name));
    golden_all[1].next_id = changed.next_id;
}

/* Before the last checkpoint: the log begins with copies of these. A put that is committed would
 * become one more segment. */
static void golden_make_prepared(omendb *db)
{
    golden_prepare(db, "done", 0, 15, 0);
    golden_must(omendb_commit_prepared(db, "done"));
    golden_all[1].values[15] = 0;
    golden_prepare(db, "waits", 200, 8, 6000);
}

static void golden_make_undone(omendb *db)
{
    golden_prepare(db, "undone", 201, 29, 6002);
    golden_must(omendb_rollback_prepared(db, "undone"));
}

/* ------------------------------------------------------------------ onto the disk */

static void golden_write(const char *folder, const char *name, const void *bytes, size_t size)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    golden_must_not_fail(file == NULL, path);
    golden_must_not_fail(fwrite(bytes, 1, size, file) != size, path);
    golden_must_not_fail(fclose(file) != 0, path);
}

static uint8_t *golden_read(const char *folder, const char *name, size_t *size)
{
    static uint8_t bytes[8 << 20];
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    golden_must_not_fail(file == NULL, path);
    *size = fread(bytes, 1, sizeof bytes, file);
    golden_must_not_fail(ferror(file) || *size == sizeof bytes, path);
    fclose(file);
    return bytes;
}

/* The database as it lies there, but for space that was reserved for the log. */
static void golden_copy(const char *from, const char *to)
{
    DIR *entries = opendir(from);
    golden_must_not_fail(entries == NULL, from);
    support_remove(to);
    golden_must_not_fail(mkdir(to, 0755) != 0, to);
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        size_t size;
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "LOCK") == 0)
            continue;
        const uint8_t *bytes = golden_read(from, entry->d_name, &size);
        if (strncmp(entry->d_name, "wal-", 4) == 0)
            while (size > FORMAT_HEADER_BYTES && format_get64(bytes + size - 8) == 0)
                size -= 8;
        golden_write(to, entry->d_name, bytes, size);
    }
    closedir(entries);
}

static void golden_describe(const char *path)
{
    FILE *file = fopen(path, "w");
    golden_must_not_fail(file == NULL, path);
    for (size_t i = 0; i < golden_count; i++) {
        const struct golden_collection *collection = &golden_all[i];
        const omendb_schema *schema = &collection->schema;
        fprintf(file,
                "collection dim %u metric %u scalar %u scale %g M %u ef_construction %u ef %u "
                "seed %llu next %llu name %s\n",
                schema->dim, schema->metric, schema->scalar, (double)schema->scale, schema->M,
                schema->ef_construction, schema->ef, (unsigned long long)schema->seed,
                (unsigned long long)collection->next_id, collection->name);
        if (collection->settings != 0)
            fprintf(file, "settings %llu\n", (unsigned long long)collection->settings);
        for (uint64_t id = 0; id < GOLDEN_MAX; id++) {
            float vector[SUPPORT_DIM_MAX];
            if (collection->values[id] == 0)
                continue;
            golden_vector(collection, collection->values[id], vector);
            fprintf(file, "%llu", (unsigned long long)id);
            for (uint32_t k = 0; k < schema->dim; k++)
                fprintf(file, " %g", (double)vector[k]);
            fputc('\n', file);
            if (collection->documented) {
                char key[64], metadata[256];
                const uint64_t updated = collection->updated[id];
                golden_document(id, updated != 0 ? updated : collection->values[id],
                                updated != 0 ? "" : GOLDEN_NONE, key, metadata);
                fprintf(file, "document %llu %s\n%s\n", (unsigned long long)id, key,
                        metadata[0] == 0 ? "{}" : metadata);
            }
        }
    }
    fprintf(file, "prepared %d done\nprepared %d undone\nprepared %d waits\n",
            OMENDB_PREPARED_COMMITTED, OMENDB_PREPARED_ROLLED_BACK, OMENDB_PREPARED_WAITING);
    golden_must_not_fail(fclose(file) != 0, path);
}

static void golden_make_present(const char *work, const char *folder)
{
    char path[4096];
    omendb *db = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = 0;
    golden_must(omendb_open(work, &options, &db));
    struct golden_collection *graph = golden_make_graph(db);
    golden_make_types(db);
    struct golden_collection *documents = golden_make_documents(db);
    golden_must(omendb_checkpoint(db));
    golden_make_curve(db, graph);
    for (uint64_t id = 29; id < 512; id += 70)
        golden_delete(graph, NULL, id);
    golden_delete(&golden_all[1], NULL, 1);
    golden_delete(&golden_all[golden_count - 2], NULL, 29);
    golden_delete(documents, NULL, 7);
    golden_update(documents, 8, 2500);
    golden_update(documents, 9, 2501);
    golden_make_prepared(db);
    golden_set(documents, 1);
    golden_must(omendb_checkpoint(db));
    golden_make_log(db);
    golden_put(documents, NULL, 4, 3000);
    golden_add_document(documents, 31, 3001);
    golden_update(documents, 9, 3002);
    golden_update(documents, 31, 3003);
    golden_make_undone(db);
    snprintf(path, sizeof path, "%s/format-%d", folder, OMENDB_FORMAT_VERSION);
    golden_copy(work, path);
    snprintf(path, sizeof path, "%s/format-%d.txt", folder, OMENDB_FORMAT_VERSION);
    golden_describe(path);
    for (size_t i = 0; i < golden_count; i++)
        omendb_collection_close(golden_all[i].handle);
    golden_must(omendb_close(db));
}

/* A database of one record, whose manifest is of another kind. */
static void golden_make_future(const char *work, const char *folder, const char *name,
                               enum format_header field, uint32_t value)
{
    char path[4096], manifest[STORAGE_NAME_BYTES];
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    size_t size;
    options.threads = 0;
    schema.dim = 3;
    support_remove(work);
    golden_must(omendb_open(work, &options, &db));
    golden_must(omendb_collection_create(db, "one", &schema, &collection));
    golden_must(support_put(collection, NULL, 7, 7, 3));
    snprintf(path, sizeof path, "%s/%s", folder, name);
    golden_copy(work, path);
    storage_name(STORAGE_MANIFEST, db->published.number, manifest);
    uint8_t *bytes = golden_read(path, manifest, &size);
    format_put32(bytes + field, value);
    storage_header_end(bytes);
    golden_write(path, manifest, bytes, size);
    omendb_collection_close(collection);
    golden_must(omendb_close(db));
}

int main(int count, char **values)
{
    char work[4096];
    if (count != 2) {
        fprintf(stderr, "usage: generate FOLDER\n");
        return 2;
    }
    snprintf(work, sizeof work, "%s", support_path("golden"));
    golden_make_present(work, values[1]);
    golden_make_future(work, values[1], "future-version", FORMAT_HEADER_VERSION,
                       OMENDB_FORMAT_VERSION + 1000);
    golden_make_future(work, values[1], "future-refuse", FORMAT_HEADER_REFUSE, 1u << 31);
    golden_make_future(work, values[1], "future-read-only", FORMAT_HEADER_READ_ONLY, 1u << 31);
    support_remove(work);
    return 0;
}
