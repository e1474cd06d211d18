/* api_collections.c: the public calls about collections. */
#include "api.h"
#include "lifecycle.h"

#include <string.h>

#define API_CREATED_AT_MOST 100000

/* Fills a handle for the caller; takes both over. */
static void api_hand_out(omendb *db, struct collection *collection, omendb_collection *made,
                         omendb_collection **handle)
{
    made->magic = COLLECTION_MAGIC;
    made->db = db;
    made->collection = collection;
    atomic_fetch_add(&db->children, 1);
    *handle = made;
}

static struct collection *api_find_collection(omendb *db, const char *name)
{
    int found;
    platform_mutex_lock(&db->commit_mutex);
    size_t at = catalog_find(&db->catalog, name, &found);
    struct collection *collection = found ? collection_reference(db->catalog.items[at]) : NULL;
    platform_mutex_unlock(&db->commit_mutex);
    return collection;
}

static int api_check_collection_arguments(omendb *db, const char *name, const omendb_schema *schema,
                                          omendb_collection **handle)
{
    if (handle == NULL)
        return api_null("collection");
    *handle = NULL;
    int code = api_database(db);
    if (code == OMENDB_OK)
        code = api_name(name, "a collection");
    if (code == OMENDB_OK && schema != NULL)
        code = api_struct_read(schema, sizeof *schema, "schema");
    return code;
}

OMENDB_API int omendb_collection_create(omendb *db, const char *name, const omendb_schema *schema,
                                        omendb_collection **collection)
{
    omendb_schema complete;
    struct collection *made = NULL;
    int code = api_check_collection_arguments(db, name, schema, collection);
    if (code != OMENDB_OK)
        return code;
    if (schema == NULL)
        return api_null("schema");
    code = schema_complete(schema, &complete);
    if (code == OMENDB_OK)
        code = commit_check_writable(db);
    if (code == OMENDB_OK)
        code = collection_create(db, 0, name, &complete, &made);
    if (code != OMENDB_OK)
        return code;
    /* Nothing may fail for want of memory once the collection is there. */
    struct change change = {.kind = CHANGE_CREATE, .collection = made};
    omendb_collection *handle = memory_zalloc(&db->memory, sizeof *handle);
    code = handle == NULL ? OMENDB_NOMEM : commit_changes(db, &change, 1, UINT64_MAX);
    if (code == OMENDB_OK) {
        api_hand_out(db, made, handle, collection);
        return OMENDB_OK;
    }
    memory_free(&db->memory, handle, sizeof *handle);
    collection_release(made);
    return code;
}

static int api_compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Whether each of the names may be one, and is another; `sorted` has room for them. */
static int api_check_names(const char *const *names, size_t count, const char **sorted)
{
    for (size_t i = 0; i < count; i++) {
        int code = api_name(names[i], "a collection");
        if (code != OMENDB_OK)
            return code;
        sorted[i] = names[i];
    }
    sort_array(sorted, count, sizeof *sorted, api_compare_names);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(sorted[i - 1], sorted[i]) == 0)
            return error_set(OMENDB_EXISTS, "collection \"%s\" is named twice", sorted[i]);
    }
    return OMENDB_OK;
}

static int api_create_all(omendb *db, size_t count, const char *const *names,
                          const omendb_schema *schema, struct change *changes)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < count && code == OMENDB_OK; i++) {
        changes[i].kind = CHANGE_CREATE;
        code = collection_create(db, 0, names[i], schema, &changes[i].collection);
    }
    if (code == OMENDB_OK)
        code = commit_changes(db, changes, count, UINT64_MAX);
    for (size_t i = 0; i < count; i++)
        collection_release(changes[i].collection); /* the catalog has references of its own */
    return code;
}

OMENDB_API int omendb_collection_create_batch(omendb *db, size_t count, const char *const *names,
                                              const omendb_schema *schema)
{
    omendb_schema complete;
    int code = api_database(db);
    if (code == OMENDB_OK && (names == NULL || schema == NULL))
        return api_null(names == NULL ? "names" : "schema");
    if (code == OMENDB_OK)
        code = api_struct_read(schema, sizeof *schema, "schema");
    if (code == OMENDB_OK)
        code = schema_complete(schema, &complete);
    if (code == OMENDB_OK)
        code = commit_check_writable(db);
    if (code == OMENDB_OK && count > API_CREATED_AT_MOST)
        code = error_set(OMENDB_TOOBIG, "%zu collections; at most %d are created at once", count,
                         API_CREATED_AT_MOST);
    if (code != OMENDB_OK || count == 0)
        return code;
    const char **sorted = memory_array(&db->memory, count, sizeof *sorted);
    struct change *changes = memory_zalloc(&db->memory, count * sizeof *changes);
    code = sorted == NULL || changes == NULL ? OMENDB_NOMEM : api_check_names(names, count, sorted);
    if (code == OMENDB_OK)
        code = api_create_all(db, count, names, &complete, changes);
    memory_free(&db->memory, sorted, count * sizeof *sorted);
    memory_free(&db->memory, changes, count * sizeof *changes);
    return code;
}

/* *missing = 1: there is none, and no sentence was set. */
static int api_open_collection(omendb *db, const char *name, const omendb_schema *schema,
                               omendb_collection **collection, int *missing)
{
    int code = api_check_collection_arguments(db, name, schema, collection);
    *missing = 0;
    if (code != OMENDB_OK)
        return code;
    struct collection *found = api_find_collection(db, name);
    *missing = found == NULL;
    if (found == NULL)
        return OMENDB_NOTFOUND;
    if (schema != NULL)
        code = schema_compare(&found->schema, schema, name);
    if (code == OMENDB_OK)
        code = rest_end(found);
    omendb_collection *handle = NULL;
    if (code == OMENDB_OK) {
        handle = memory_zalloc(&db->memory, sizeof *handle);
        code = handle == NULL ? OMENDB_NOMEM : OMENDB_OK;
    }
    if (code == OMENDB_OK)
        api_hand_out(db, found, handle, collection);
    else
        collection_release(found);
    return code;
}

OMENDB_API int omendb_collection_open(omendb *db, const char *name, const omendb_schema *schema,
                                      omendb_collection **collection)
{
    int missing, code = api_open_collection(db, name, schema, collection, &missing);
    return missing ? error_set(code, "there is no collection \"%s\"", name) : code;
}

OMENDB_API int omendb_collection_open_or_create(omendb *db, const char *name,
                                                const omendb_schema *schema,
                                                omendb_collection **collection)
{
    if (collection != NULL)
        *collection = NULL;
    if (schema == NULL)
        return api_null("schema");
    /* Somebody else may create or drop it between the two calls. */
    int missing, code = api_open_collection(db, name, schema, collection, &missing);
    for (int attempt = 0; attempt < 100 && missing; attempt++) {
        code = omendb_collection_create(db, name, schema, collection);
        missing = 0;
        if (code == OMENDB_EXISTS)
            code = api_open_collection(db, name, schema, collection, &missing);
    }
    return missing ? error_set(OMENDB_BUSY, "collection \"%s\" comes and goes; try again", name)
                   : code;
}

OMENDB_API int omendb_collection_drop(omendb *db, const char *name)
{
    int code = api_database(db);
    if (code == OMENDB_OK)
        code = api_name(name, "a collection");
    if (code == OMENDB_OK)
        code = commit_check_writable(db);
    if (code != OMENDB_OK)
        return code;
    struct collection *collection = api_find_collection(db, name);
    if (collection == NULL)
        return error_set(OMENDB_NOTFOUND, "there is no collection \"%s\"", name);
    struct change change = {.kind = CHANGE_DROP, .collection = collection};
    code = commit_changes(db, &change, 1, UINT64_MAX);
    if (code == OMENDB_OK) {
        work_forget_dropped(collection);
        work_notice_drop(collection);
    }
    collection_release(collection);
    if (code == OMENDB_OK)
        work_reclaim(db);
    return code == OMENDB_DROPPED
               ? error_set(OMENDB_NOTFOUND, "there is no collection \"%s\"", name)
               : code;
}

OMENDB_API void omendb_collection_close(omendb_collection *collection)
{
    if (collection == NULL || !handle_is(collection, COLLECTION_MAGIC) ||
        collection->db->process != platform_process())
        return;
    omendb *db = collection->db;
    collection->magic = 0;
    rest_release(collection->collection);
    memory_free(&db->memory, collection, sizeof *collection);
    database_child_done(db);
}

OMENDB_API int omendb_collection_name(omendb *db, size_t index, char *name, size_t capacity)
{
    int code = api_database(db);
    if (code != OMENDB_OK)
        return code;
    if (name == NULL)
        return api_null("name");
    platform_mutex_lock(&db->commit_mutex);
    if (index >= db->catalog.count) {
        code = OMENDB_DONE;
    } else {
        size_t length = strlen(db->catalog.items[index]->name);
        if (length < capacity)
            memcpy(name, db->catalog.items[index]->name, length + 1);
        else
            code = error_set(OMENDB_INVALID, "capacity is %zu; the name needs %zu bytes", capacity,
                             length + 1);
    }
    platform_mutex_unlock(&db->commit_mutex);
    return code;
}

OMENDB_API int omendb_collection_schema(omendb_collection *collection, omendb_schema *schema)
{
    int code = api_collection(collection);
    if (code != OMENDB_OK)
        return code;
    if (schema == NULL)
        return api_null("schema");
    code = api_struct(schema->struct_size, sizeof *schema, "schema");
    if (code == OMENDB_OK)
        *schema = collection->collection->schema;
    return code;
}

/* By the curve of the collection or of the segment with the largest graph. */
static void api_promised_recall(const struct collection *collection, const struct version *version,
                                omendb_collection_stats *stats)
{
    const struct calibration *curve = search_own_curve(collection, version);
    const struct segment *largest = NULL;
    struct calibration_answer answer;
    for (uint32_t i = 0; i < version->segment_count; i++) {
        if (largest == NULL || version->segments[i]->info.indexed_rows > largest->info.indexed_rows)
            largest = version->segments[i];
    }
    if (curve == NULL && largest != NULL)
        curve = largest->calibration;
    if (curve == NULL)
        return;
    calibration_find_recall(curve, 10, collection->schema.ef < 10 ? 10 : collection->schema.ef,
                            0.0f, &answer);
    stats->recall = answer.recall;
    stats->recall_queries = curve->queries;
}

OMENDB_API int omendb_collection_get_stats(omendb_collection *collection,
                                           omendb_collection_stats *stats)
{
    int code = api_collection(collection);
    if (code != OMENDB_OK)
        return code;
    if (stats == NULL)
        return api_null("stats");
    code = api_struct(stats->struct_size, sizeof *stats, "stats");
    if (code != OMENDB_OK)
        return code;
    uint64_t commit;
    struct version *version = version_acquire_newest(collection->collection, &commit);
    *stats = (omendb_collection_stats){.struct_size = sizeof *stats};
    code = version_count(version, commit, &stats->records);
    stats->unindexed_rows = version_unindexed_bytes(version, 1);
    for (uint32_t i = 0; i < version->memtable_count; i++)
        stats->memtable_rows += memtable_visible_rows(version->memtables[i], commit);
    stats->rows = stats->memtable_rows;
    for (uint32_t i = 0; i < version->segment_count; i++) {
        stats->rows += version->segments[i]->info.rows;
        stats->hot_bytes += hot_size(version->segments[i]);
        if (version->segments[i]->file->file->part_count == 1)
            stats->segment_bytes += version->segments[i]->file->entry.size;
        else
            stats->segment_bytes +=
                version->segments[i]->info.rows * (uint64_t)collection->collection->vector_bytes;
    }
    api_promised_recall(collection->collection, version, stats);
    stats->segments = version->segment_count;
    stats->next_id = atomic_load(&collection->collection->next_id);
    version_release(version);
    quota_tell(collection->collection, stats);
    return code;
}

#undef API_CREATED_AT_MOST
