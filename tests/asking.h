/* asking.h: a collection with everything that a search meets (segments with and without graph, rows
 * in memory, deleted and replaced ones, changes of a transaction), and a model of it, against which
 * more ways to ask are compared: groups, facets, examples, pages, many queries. */
#ifndef OMENDB_TEST_ASKING_H
#define OMENDB_TEST_ASKING_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "support.h"
#include "test.h"

#define ASKING_DIM    6
#define ASKING_MANY   3000
#define ASKING_VALUES 4 /* of a field of one record, at most */

/* A field as the model knows it: its values as numbers. */
struct asking_field {
    int is_null, count;
    uint64_t values[ASKING_VALUES]; /* of an array one may stand there twice */
};

struct asking_record {
    int live;
    uint64_t size;
    float vector[ASKING_DIM];
    struct asking_field doc, tags;
};

static struct {
    char path[4352];
    omendb *db;
    omendb_collection *docs;
    struct asking_record records[ASKING_MANY];
} asking;

/* A record's hit in the model. */
struct asking_hit {
    float distance;
    uint64_t id;
};

static inline int asking_open(const char *name, int32_t threads)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    memset(&asking, 0, sizeof asking);
    snprintf(asking.path, sizeof asking.path, "%s", support_path(name));
    options.threads = threads;
    options.sync = OMENDB_SYNC_OFF;
    schema.dim = ASKING_DIM;
    schema.M = 8;
    schema.ef_construction = 40;
    int status = omendb_open(asking.path, &options, &asking.db);
    return status != OMENDB_OK ? status
                               : omendb_collection_create(asking.db, "docs", &schema, &asking.docs);
}

static inline int asking_close(void)
{
    omendb_collection_close(asking.docs);
    const int status = omendb_close(asking.db);
    support_remove(asking.path);
    return status;
}

/* One value of all types, or none: the text is JSON. Few values, of which one has a third. */
static inline size_t asking_write_doc(struct support_random *random, char *json,
                                      struct asking_field *field)
{
    static const char *const numbers[] = {"5", "5.0", "0.5e1", "-7", "2.5", "1e300"};
    static const uint64_t codes[] = {1005, 1005, 1005, 1007, 1002, 1300};
    const uint64_t kind = support_below(random, 20);
    const uint64_t number = support_below(random, 3) == 0 ? 0 : support_below(random, 60);
    field->count = 1;
    if (kind == 0) {
        field->is_null = 1;
        field->count = 0;
        return (size_t)sprintf(json, ",\"doc\":null");
    }
    if (kind == 1) {
        field->values[0] = 2000 + number % 2;
        return (size_t)sprintf(json, ",\"doc\":%s", number % 2 ? "true" : "false");
    }
    if (kind < 5) {
        field->values[0] = codes[number % 6];
        return (size_t)sprintf(json, ",\"doc\":%s", numbers[number % 6]);
    }
    field->values[0] = number;
    return (size_t)sprintf(json, ",\"doc\":\"d%02llu\"", (unsigned long long)number);
}

static inline size_t asking_write_tags(struct support_random *random, char *json,
                                       struct asking_field *field)
{
    size_t at = (size_t)sprintf(json, ",\"tags\":[");
    field->count = (int)support_below(random, ASKING_VALUES + 1);
    for (int i = 0; i < field->count; i++) {
        field->values[i] = support_below(random, 25);
        at += (size_t)sprintf(json + at, "%s\"t%02llu\"", i == 0 ? "" : ",",
                              (unsigned long long)field->values[i]);
    }
    return at + (size_t)sprintf(json + at, "]");
}

/* Record `id` in its version `version`, stored; the model is told. */
static inline int asking_put(omendb_txn *txn, uint64_t id, uint64_t version)
{
    struct support_random random = {id * 1000003 + version};
    struct asking_record *record = &asking.records[id];
    char json[512], key[32];
    omendb_record stored = OMENDB_RECORD_INIT;
    memset(record, 0, sizeof *record);
    record->live = 1;
    record->size = support_below(&random, 100);
    support_vector(support_next(&random), ASKING_DIM, record->vector);
    size_t at = (size_t)sprintf(json, "{\"size\":%llu", (unsigned long long)record->size);
    if (support_below(&random, 15) == 0)
        record->doc.is_null = 1;
    else
        at += asking_write_doc(&random, json + at, &record->doc);
    if (support_below(&random, 10) == 0)
        record->tags.is_null = 1;
    else
        at += asking_write_tags(&random, json + at, &record->tags);
    sprintf(json + at, "}");
    sprintf(key, "key %llu", (unsigned long long)id);
    stored.id = id;
    stored.vector = record->vector;
    stored.metadata = json;
    stored.key = id % 2 ? key : NULL;
    return omendb_put(asking.docs, txn, &stored, NULL);
}

static inline int asking_delete(omendb_txn *txn, uint64_t id)
{
    asking.records[id].live = 0;
    const int status = omendb_delete(asking.docs, txn, id);
    return status == OMENDB_NOTFOUND ? OMENDB_OK : status;
}

/* Every `step`th of [first, last) anew, and of those every third deleted. */
static inline int asking_change(omendb_txn *txn, uint64_t first, uint64_t last, uint64_t step,
                                uint64_t version)
{
    int status = OMENDB_OK;
    for (uint64_t id = first; id < last && status == OMENDB_OK; id += step)
        status = id / step % 3 == 2 ? asking_delete(txn, id) : asking_put(txn, id, version);
    return status;
}

static inline int asking_put_many(uint64_t first, uint64_t last)
{
    omendb_txn *txn = NULL;
    int status = omendb_txn_begin(asking.db, OMENDB_READ_WRITE, &txn);
    for (uint64_t id = first; id < last && status == OMENDB_OK; id++)
        status = asking_put(txn, id, 0);
    if (status == OMENDB_OK)
        return omendb_txn_commit(txn);
    omendb_txn_rollback(txn);
    return status;
}

/* A segment with a graph, one without, rows in memory; in all of them deleted and replaced ones. */
static inline int asking_fill(void)
{
    int status = asking_put_many(0, 1800);
    if (status == OMENDB_OK)
        status = omendb_optimize(asking.db, NULL, NULL);
    if (status == OMENDB_OK)
        status = asking_put_many(1800, 2400);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(asking.db);
    if (status == OMENDB_OK)
        status = asking_put_many(2400, ASKING_MANY - 100);
    return status == OMENDB_OK ? asking_change(NULL, 3, ASKING_MANY, 17, 1) : status;
}

static inline int asking_compare_hits(const void *left, const void *right)
{
    const struct asking_hit *a = left, *b = right;
    return a->distance != b->distance ? (a->distance > b->distance) - (a->distance < b->distance)
                                      : (a->id > b->id) - (a->id < b->id);
}

/* All live records whose size is below `below`, by distance. */
static inline size_t asking_sort(const float *query, uint64_t below, struct asking_hit *hits)
{
    size_t count = 0;
    for (uint64_t id = 0; id < ASKING_MANY; id++) {
        const struct asking_record *record = &asking.records[id];
        if (record->live && record->size < below)
            hits[count++] = (struct asking_hit){support_l2(query, record->vector, ASKING_DIM), id};
    }
    qsort(hits, count, sizeof *hits, asking_compare_hits);
    return count;
}

/* Of the field that groups, facets go by. */
static inline struct asking_field asking_field_of(uint64_t id, const char *name)
{
    const struct asking_record *record = &asking.records[id];
    if (strcmp(name, "doc") == 0)
        return record->doc;
    if (strcmp(name, "tags") == 0)
        return record->tags;
    struct asking_field field = {.count = 1, .values = {record->size}};
    if (strcmp(name, "_key") == 0) {
        field.values[0] = 10000 + id;
        field.is_null = id % 2 == 0;
        field.count = id % 2 == 0 ? 0 : 1;
    }
    return field;
}

#endif
