/* api.c: the public calls: arguments are checked, the work is done elsewhere. */
#include "database.h"
#include "lifecycle.h"
#include "records.h"
#include "rows.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------ versions and structs */

OMENDB_API const char *omendb_version(void)
{
    return OMENDB_VERSION;
}

OMENDB_API int omendb_version_number(void)
{
    return OMENDB_VERSION_NUMBER;
}

OMENDB_API int omendb_abi_version(void)
{
    return OMENDB_ABI_VERSION;
}

OMENDB_API int omendb_format_version(void)
{
    return OMENDB_FORMAT_VERSION;
}

OMENDB_API const char *omendb_kernels(void)
{
    return kernels_active()->name;
}

OMENDB_API const char *omendb_scalar_name(int scalar)
{
    static const char *const names[] = {"f32", "f16", "bf16", "i8", "u8", "b1"};
    return scalar < OMENDB_F32 || scalar > OMENDB_B1 ? "unknown type" : names[scalar];
}

OMENDB_API const char *omendb_metric_name(int metric)
{
    static const char *const names[] = {"l2", "cosine", "ip", "hamming"};
    return metric < OMENDB_L2 || metric > OMENDB_HAMMING ? "unknown metric" : names[metric];
}

OMENDB_API void omendb_options_init(omendb_options *options)
{
    static const omendb_options initial = OMENDB_OPTIONS_INIT;
    if (options != NULL)
        *options = initial;
}

OMENDB_API void omendb_schema_init(omendb_schema *schema)
{
    static const omendb_schema initial = OMENDB_SCHEMA_INIT;
    if (schema != NULL)
        *schema = initial;
}

OMENDB_API void omendb_record_init(omendb_record *record)
{
    static const omendb_record initial = OMENDB_RECORD_INIT;
    if (record != NULL)
        *record = initial;
}

OMENDB_API void omendb_query_init(omendb_query *query)
{
    static const omendb_query initial = OMENDB_QUERY_INIT;
    if (query != NULL)
        *query = initial;
}

OMENDB_API void omendb_explain_init(omendb_explain *explain)
{
    static const omendb_explain initial = OMENDB_EXPLAIN_INIT;
    if (explain != NULL)
        *explain = initial;
}

OMENDB_API void omendb_stats_init(omendb_stats *stats)
{
    static const omendb_stats initial = OMENDB_STATS_INIT;
    if (stats != NULL)
        *stats = initial;
}

OMENDB_API void omendb_collection_stats_init(omendb_collection_stats *stats)
{
    static const omendb_collection_stats initial = OMENDB_COLLECTION_STATS_INIT;
    if (stats != NULL)
        *stats = initial;
}

/* ------------------------------------------------------------------ arguments */

static int api_null(const char *what)
{
    return error_set(OMENDB_MISUSE, "%s is NULL", what);
}

/* A struct that the caller fills or has filled, made with the _INIT of this header or of a later,
 * larger one. No smaller size exists yet. */
#define API_STRUCT_MAX 4096
#define API_STRETCH_EF 2000

static int api_struct(size_t size, size_t expected, const char *what)
{
    if (size >= expected && size <= API_STRUCT_MAX)
        return OMENDB_OK;
    if (size > API_STRUCT_MAX)
        return error_set(OMENDB_MISUSE,
                         "%s.struct_size is %zu: it was not set; see STRUCTS in omendb.h", what,
                         size);
    return error_set(OMENDB_MISUSE,
                     "%s.struct_size is %zu, at least %zu is needed; set it as omendb.h says under "
                     "STRUCTS",
                     what, size, expected);
}

/* A struct that is read: what a later header has on top must be 0, for it cannot be heeded. */
static int api_struct_read(const void *given, size_t expected, const char *what)
{
    size_t size;
    memcpy(&size, given, sizeof size);
    int code = api_struct(size, expected, what);
    for (size_t at = expected; at < size && code == OMENDB_OK; at++) {
        if (((const unsigned char *)given)[at] != 0)
            return error_set(OMENDB_INVALID,
                             "%s has a field at byte %zu that version " OMENDB_VERSION
                             " does not know, and it is set",
                             what, at);
    }
    return code;
}

static int api_database(const omendb *db)
{
    if (db == NULL)
        return api_null("db");
    if (!handle_is(db, DATABASE_MAGIC))
        return error_set(OMENDB_MISUSE, "db is not an open database");
    if (db->process != platform_process())
        return error_set(
            OMENDB_MISUSE,
            "the database was opened by the parent of this process; open it anew in the child");
    return atomic_load(&db->released) ? error_set(OMENDB_MISUSE, "the database was released")
                                      : OMENDB_OK;
}

static int api_collection(const omendb_collection *handle)
{
    if (handle == NULL)
        return api_null("collection");
    if (!handle_is(handle, COLLECTION_MAGIC))
        return error_set(OMENDB_MISUSE, "collection is not an open collection");
    int code = api_database(handle->db);
    if (code == OMENDB_OK && atomic_load(&handle->db->half_refreshed))
        return error_set(OMENDB_IOERR, "the last omendb_refresh failed half-way; call it again");
    if (code == OMENDB_OK && atomic_load(&handle->collection->dropped))
        return error_set(OMENDB_DROPPED, "collection \"%s\" was dropped", handle->collection->name);
    return code;
}

static int api_txn(const omendb_collection *handle, const omendb_txn *txn)
{
    if (txn == NULL)
        return OMENDB_OK;
    if (!handle_is(txn, TXN_MAGIC) || txn->db != handle->db)
        return error_set(OMENDB_MISUSE, "txn is not an open transaction of this database");
    return OMENDB_OK;
}

static int api_writing(const omendb_collection *handle, const omendb_txn *txn)
{
    int code = api_collection(handle);
    if (code == OMENDB_OK)
        code = api_txn(handle, txn);
    if (code == OMENDB_OK && handle->db->read_only)
        return error_set(OMENDB_READONLY, "the database was opened read-only");
    if (code == OMENDB_OK && txn != NULL && txn->mode == OMENDB_READ_ONLY)
        return error_set(OMENDB_READONLY, "the transaction was begun read-only");
    return code;
}

/* Valid UTF-8 without control characters, 1 to 255 bytes. */
static int api_name(const char *name)
{
    if (name == NULL)
        return api_null("name");
    size_t length = strlen(name);
    if (length == 0 || length > 255)
        return error_set(OMENDB_INVALID, "a collection's name has %zu bytes; 1 to 255 are allowed",
                         length);
    for (size_t i = 0; i < length;) {
        const unsigned char *at = (const unsigned char *)name + i;
        size_t run = *at < 0x80             ? 1
                     : (*at & 0xe0) == 0xc0 ? 2
                     : (*at & 0xf0) == 0xe0 ? 3
                     : (*at & 0xf8) == 0xf0 ? 4
                                            : 0;
        int valid =
            run != 0 && *at >= 0x20 && *at != 0x7f && *at != 0xc0 && *at != 0xc1 && *at < 0xf5;
        for (size_t k = 1; k < run && valid; k++)
            valid = (at[k] & 0xc0) == 0x80;
        /* Overlong forms, surrogates, and what is beyond U+10FFFF. */
        valid = valid && !(*at == 0xe0 && at[1] < 0xa0) && !(*at == 0xed && at[1] >= 0xa0) &&
                !(*at == 0xf0 && at[1] < 0x90) && !(*at == 0xf4 && at[1] >= 0x90);
        if (!valid)
            return error_set(OMENDB_INVALID,
                             "a collection's name has a control character or bad UTF-8 at byte %zu",
                             i);
        i += run;
    }
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ database */

static int api_check_allocator(const omendb_allocator *allocator)
{
    if (allocator == NULL)
        return OMENDB_OK;
    int code = api_struct_read(allocator, sizeof *allocator, "options.allocator");
    if (code != OMENDB_OK)
        return code;
    return allocator->alloc == NULL || allocator->resize == NULL || allocator->release == NULL
               ? api_null("a function of options.allocator")
               : OMENDB_OK;
}

/* map, unmap and advise go together; without them files are read. */
static int api_check_vfs(const omendb_vfs *vfs)
{
    if (vfs == NULL)
        return OMENDB_OK;
    int code = api_struct_read(vfs, sizeof *vfs, "options.vfs");
    if (code != OMENDB_OK)
        return code;
    if (vfs->open_directory == NULL || vfs->close_directory == NULL ||
        vfs->sync_directory == NULL || vfs->list == NULL || vfs->rename == NULL ||
        vfs->unlink == NULL || vfs->open == NULL || vfs->close == NULL || vfs->size == NULL ||
        vfs->read == NULL || vfs->write == NULL || vfs->truncate == NULL || vfs->allocate == NULL ||
        vfs->sync == NULL || vfs->lock == NULL || vfs->identity == NULL || vfs->now_us == NULL ||
        (vfs->map != NULL && vfs->unmap == NULL))
        return api_null("a function of options.vfs");
    return OMENDB_OK;
}

static int api_check_options(const omendb_options *options)
{
    int code = api_struct_read(options, sizeof *options, "options");
    if (code != OMENDB_OK)
        return code;
    if (options->sync > OMENDB_SYNC_OFF)
        return error_set(OMENDB_INVALID,
                         "options.sync is %u; there are OMENDB_SYNC_FULL (0), OMENDB_SYNC_NORMAL "
                         "(1) and OMENDB_SYNC_OFF (2)",
                         options->sync);
    if (options->io > OMENDB_IO_PREAD)
        return error_set(OMENDB_INVALID,
                         "options.io is %u; there are OMENDB_IO_MAP (0) and OMENDB_IO_PREAD (1)",
                         options->io);
    if (options->memory_limit != 0 && options->memory_limit < OMENDB_MEMORY_LIMIT_MIN)
        return error_set(
            OMENDB_INVALID,
            "options.memory_limit is %llu bytes; it must be at least %llu, or 0 for none",
            (unsigned long long)options->memory_limit, (unsigned long long)OMENDB_MEMORY_LIMIT_MIN);
    if (options->threads < OMENDB_THREADS_AUTO || options->threads > 1024)
        return error_set(OMENDB_INVALID,
                         "options.threads is %d; it must be OMENDB_THREADS_AUTO or 0 to 1,024",
                         options->threads);
    code = api_check_allocator(options->allocator);
    return code == OMENDB_OK ? api_check_vfs(options->vfs) : code;
}

OMENDB_API int omendb_open(const char *path, const omendb_options *options, omendb **db)
{
    omendb_options defaults = OMENDB_OPTIONS_INIT;
    if (db == NULL)
        return api_null("db");
    *db = NULL;
    if (path == NULL)
        return api_null("path");
    if (path[0] == 0)
        return error_set(OMENDB_INVALID, "the path is empty");
    options = options == NULL ? &defaults : options;
    int code = api_check_options(options);
    return code == OMENDB_OK ? database_open(path, options, db) : code;
}

struct api_count {
    uint64_t count;
    const char *one, *many;
};

/* "1 collection and 2 cursors are open; close them first" */
static int api_busy(const struct api_count *counts, size_t kinds)
{
    char text[160] = "";
    uint64_t total = 0;
    size_t length = 0, left = 0;
    for (size_t i = 0; i < kinds; i++) {
        total += counts[i].count;
        left += counts[i].count != 0;
    }
    for (size_t i = 0; i < kinds && length < sizeof text; i++) {
        if (counts[i].count == 0)
            continue;
        left--;
        const char *before = length == 0 ? "" : left == 0 ? " and " : ", ";
        length += (size_t)snprintf(text + length, sizeof text - length, "%s%llu %s", before,
                                   (unsigned long long)counts[i].count,
                                   counts[i].count == 1 ? counts[i].one : counts[i].many);
    }
    return error_set(OMENDB_BUSY,
                     total == 1 ? "%s is open; close it first" : "%s are open; close them first",
                     text);
}

static uint64_t api_open_transactions(omendb *db)
{
    platform_mutex_lock(&db->txn_mutex);
    uint64_t open = db->open_transactions;
    platform_mutex_unlock(&db->txn_mutex);
    return open;
}

static int api_children_open(omendb *db)
{
    uint64_t transactions = api_open_transactions(db), cursors = atomic_load(&db->open_cursors);
    uint64_t children = atomic_load(&db->children), others = transactions + cursors;
    const struct api_count counts[] = {
        {children > others ? children - others : 0, "collection", "collections"},
        {transactions, "transaction", "transactions"},
        {cursors, "cursor", "cursors"},
    };
    return api_busy(counts, 3);
}

OMENDB_API int omendb_close(omendb *db)
{
    if (db == NULL)
        return OMENDB_OK;
    if (!handle_is(db, DATABASE_MAGIC) || atomic_load(&db->released))
        return error_set(OMENDB_MISUSE, "db is not an open database");
    if (atomic_load(&db->children) != 0 && db->process == platform_process())
        return api_children_open(db);
    return database_close(db);
}

OMENDB_API void omendb_release(omendb *db)
{
    if (db == NULL || !handle_is(db, DATABASE_MAGIC))
        return;
    /* Count and mark are one number, so that exactly one thread finds the last child gone. */
    atomic_store(&db->released, 1);
    if (atomic_fetch_or(&db->children, DATABASE_RELEASED) == 0)
        database_close(db);
}

OMENDB_API int omendb_refresh(omendb *db)
{
    int code = api_database(db);
    if (code != OMENDB_OK || !db->read_only)
        return code;
    const struct api_count open = {api_open_transactions(db), "transaction", "transactions"};
    return open.count != 0 ? api_busy(&open, 1) : recover_refresh(db);
}

OMENDB_API int omendb_checkpoint(omendb *db)
{
    int code = api_database(db);
    return code == OMENDB_OK ? work_checkpoint(db, 1) : code;
}

/* Of omendb_optimize: what is told is of all collections, and never falls, although a merge counts
 * its own rows, and those anew for each pass over them. */
struct api_progress {
    int (*fn)(void *context, uint64_t done, uint64_t total);
    void *context;
    uint64_t done, total; /* as told */
    uint64_t finished;    /* rows of collections that are done with */
    uint64_t rows;        /* of the one that is merged */
    int waiting;          /* for a merge of the background: what it does counts as it is */
};

static int api_tell_progress(void *context, uint64_t done, uint64_t total)
{
    struct api_progress *progress = context;
    uint64_t at = progress->finished;
    at += progress->waiting ? done
                            : (uint64_t)((double)progress->rows * ((double)done / (double)total));
    at = at < progress->total ? at : progress->total;
    progress->done = at > progress->done ? at : progress->done;
    return progress->fn(progress->context, progress->done, progress->total);
}

static uint64_t api_stored_rows(omendb *db)
{
    uint64_t rows = 0, largest;
    platform_mutex_lock(&db->commit_mutex);
    for (size_t i = 0; i < db->catalog.count; i++)
        rows += search_total_rows(atomic_load(&db->catalog.items[i]->version), &largest);
    platform_mutex_unlock(&db->commit_mutex);
    return rows;
}

static int api_optimize_collection(omendb *db, struct collection *collection,
                                   struct api_progress *progress)
{
    int (*tell)(void *context, uint64_t done, uint64_t total) =
        progress->fn == NULL ? NULL : api_tell_progress;
    uint64_t largest;
    progress->waiting = 1;
    int merged, code = work_merge_begin(db, tell, progress);
    if (code != OMENDB_OK)
        return code;
    progress->waiting = 0;
    struct version *version = version_acquire(collection);
    progress->rows = search_total_rows(version, &largest);
    version_release(version);
    code = compact_run(db, &collection, 1, 1, tell, progress, &merged);
    work_merge_end(db);
    progress->finished += progress->rows;
    return code;
}

OMENDB_API int omendb_optimize(omendb *db,
                               int (*progress)(void *context, uint64_t done, uint64_t total),
                               void *context)
{
    struct api_progress told = {.fn = progress, .context = context};
    int code = api_database(db);
    if (code == OMENDB_OK)
        code = work_checkpoint(db, 1);
    if (code == OMENDB_OK)
        told.total = api_stored_rows(db);
    told.total += told.total == 0;
    for (size_t i = 0; code == OMENDB_OK; i++) {
        platform_mutex_lock(&db->commit_mutex);
        struct collection *collection =
            i < db->catalog.count ? collection_reference(db->catalog.items[i]) : NULL;
        platform_mutex_unlock(&db->commit_mutex);
        if (collection == NULL)
            break;
        code = api_optimize_collection(db, collection, &told);
        collection_release(collection);
    }
    return code == OMENDB_DONE ? OMENDB_OK : code;
}

OMENDB_API int omendb_work(omendb *db, uint64_t budget_us, int *more)
{
    int did = 1, code = api_database(db);
    if (code != OMENDB_OK)
        return code;
    const omendb_vfs *vfs = db->storage.vfs;
    uint64_t begin = vfs->now_us(vfs->context);
    do {
        code = work_step(db, &did);
    } while (code == OMENDB_OK && did &&
             (budget_us == UINT64_MAX || vfs->now_us(vfs->context) - begin < budget_us));
    if (more != NULL)
        *more = did;
    return code;
}

OMENDB_API int omendb_backup(omendb *db, const char *path)
{
    int code = api_database(db);
    if (code == OMENDB_OK && path == NULL)
        return api_null("path");
    if (code == OMENDB_OK && (path[0] == 0 || strcmp(path, ":memory:") == 0))
        return error_set(OMENDB_INVALID, "a backup needs the path of a directory, not \"%s\"",
                         path);
    if (code == OMENDB_OK && db->read_only)
        return error_set(OMENDB_READONLY, "a backup begins with a checkpoint, which a read_only "
                                          "handle cannot make; back up through the writing one");
    if (code != OMENDB_OK)
        return code;
    memory_begin_maintenance();
    code = backup_run(db, path);
    memory_end_maintenance();
    return code;
}

OMENDB_API int omendb_check(omendb *db, void (*report)(void *context, const char *line),
                            void *context, uint64_t *problems)
{
    int code = api_database(db);
    if (code != OMENDB_OK)
        return code;
    memory_begin_maintenance();
    code = check_run(db, report, context, problems);
    memory_end_maintenance();
    return code;
}

static void api_count_collections(omendb *db, omendb_stats *stats)
{
    for (size_t i = 0;; i++) {
        uint64_t commit, count = 0;
        platform_mutex_lock(&db->commit_mutex);
        struct collection *collection =
            i < db->catalog.count ? collection_reference(db->catalog.items[i]) : NULL;
        platform_mutex_unlock(&db->commit_mutex);
        if (collection == NULL)
            return;
        struct version *version = version_acquire_newest(collection, &commit);
        version_count(version, commit, &count);
        version_release(version);
        collection_release(collection);
        stats->collections++;
        stats->records += count;
    }
}

OMENDB_API int omendb_get_stats(omendb *db, omendb_stats *stats)
{
    int code = api_database(db);
    if (code != OMENDB_OK)
        return code;
    if (stats == NULL)
        return api_null("stats");
    code = api_struct(stats->struct_size, sizeof *stats, "stats");
    if (code != OMENDB_OK)
        return code;
    *stats = (omendb_stats){.struct_size = sizeof *stats};
    stats->commits = atomic_load(&db->visible_commit);
    stats->memory_bytes = atomic_load(&db->memory.used);
    stats->memory_peak_bytes = atomic_load(&db->memory.peak);
    stats->mapped_bytes = atomic_load(&db->storage.mapped_bytes);
    stats->wal_bytes = atomic_load(&db->log_bytes);
    stats->written_bytes = atomic_load(&db->storage.written_bytes);
    stats->syncs = atomic_load(&db->storage.syncs);
    stats->commit_groups = atomic_load(&db->commit_groups);
    stats->checkpoints = atomic_load(&db->checkpoints);
    stats->merges = atomic_load(&db->merges);
    stats->merges_rebuilt = atomic_load(&db->merges_rebuilt);
    stats->open_transactions = api_open_transactions(db);
    platform_mutex_lock(&db->maintenance_mutex);
    stats->file_bytes = stats->wal_bytes;
    for (uint32_t i = 0; i < db->published.file_count; i++)
        stats->file_bytes += db->published.files[i].size;
    platform_mutex_unlock(&db->maintenance_mutex);
    api_count_collections(db, stats);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ collections */

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
        code = api_name(name);
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
        code = api_name(name);
    if (code == OMENDB_OK)
        code = commit_check_writable(db);
    if (code != OMENDB_OK)
        return code;
    struct collection *collection = api_find_collection(db, name);
    if (collection == NULL)
        return error_set(OMENDB_NOTFOUND, "there is no collection \"%s\"", name);
    struct change change = {.kind = CHANGE_DROP, .collection = collection};
    code = commit_changes(db, &change, 1, UINT64_MAX);
    collection_release(collection);
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
    collection_release(collection->collection);
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
    return code;
}

/* ------------------------------------------------------------------ transactions */

OMENDB_API int omendb_txn_begin(omendb *db, int mode, omendb_txn **txn)
{
    if (txn == NULL)
        return api_null("txn");
    *txn = NULL;
    int code = api_database(db);
    if (code == OMENDB_OK && mode != OMENDB_READ_ONLY && mode != OMENDB_READ_WRITE)
        return error_set(OMENDB_INVALID,
                         "mode is %d; it must be OMENDB_READ_ONLY or OMENDB_READ_WRITE", mode);
    return code == OMENDB_OK ? txn_begin(db, mode, txn) : code;
}

static void api_end_txn(omendb_txn *txn)
{
    omendb *db = txn->db;
    txn_end(txn);
    database_child_done(db);
}

OMENDB_API int omendb_txn_commit(omendb_txn *txn)
{
    if (txn == NULL)
        return api_null("txn");
    if (!handle_is(txn, TXN_MAGIC))
        return error_set(OMENDB_MISUSE, "txn is not an open transaction");
    if (txn->db->process != platform_process())
        return error_set(OMENDB_MISUSE, "the transaction belongs to the parent of this process");
    struct work_wait wait = {0};
    int code = txn_commit(txn);
    while (code == OMENDB_NOMEM && work_relieve(txn->db, &wait))
        code = txn_commit(txn);
    api_end_txn(txn);
    return code;
}

OMENDB_API void omendb_txn_rollback(omendb_txn *txn)
{
    if (txn != NULL && handle_is(txn, TXN_MAGIC) && txn->db->process == platform_process())
        api_end_txn(txn);
}

/* ------------------------------------------------------------------ records */

static int api_try_write(omendb_collection *collection, omendb_txn *txn, uint32_t kind,
                         size_t count, const uint64_t *ids, const void *vectors, uint32_t type,
                         uint64_t *new_ids)
{
    struct records records;
    int code = records_prepare(collection->collection, kind, count, ids, vectors, type, &records);
    if (code == OMENDB_OK)
        code = records_commit(&records, txn);
    if (code == OMENDB_OK && new_ids != NULL) {
        if (records.change.automatic)
            memcpy(new_ids, records.change.ids, count * sizeof *new_ids);
        else if (new_ids != ids)
            memmove(new_ids, ids, count * sizeof *new_ids);
    }
    records_destroy(&records);
    return code;
}

static int api_write_batch(omendb_collection *collection, omendb_txn *txn, uint32_t kind,
                           size_t count, const uint64_t *ids, const void *vectors, uint32_t type,
                           uint64_t *new_ids)
{
    int code = api_writing(collection, txn);
    if (code != OMENDB_OK || count == 0)
        return code;
    if (vectors == NULL)
        return api_null("vectors");
    struct work_wait wait = {0};
    code = api_try_write(collection, txn, kind, count, ids, vectors, type, new_ids);
    while (code == OMENDB_NOMEM && work_relieve(collection->db, &wait))
        code = api_try_write(collection, txn, kind, count, ids, vectors, type, new_ids);
    return code;
}

static int api_write_one(omendb_collection *collection, omendb_txn *txn, uint32_t kind,
                         const omendb_record *record, uint64_t *id)
{
    if (record == NULL)
        return api_null("record");
    int code = api_struct_read(record, sizeof *record, "record");
    if (code != OMENDB_OK)
        return code;
    if (record->vector == NULL)
        return api_null("record.vector");
    return api_write_batch(collection, txn, kind, 1, &record->id, record->vector,
                           record->vector_type, id);
}

OMENDB_API int omendb_add(omendb_collection *collection, omendb_txn *txn,
                          const omendb_record *record, uint64_t *id)
{
    return api_write_one(collection, txn, CHANGE_ADD, record, id);
}

OMENDB_API int omendb_add_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, const void *vectors, int vector_type,
                                uint64_t *new_ids)
{
    return api_write_batch(collection, txn, CHANGE_ADD, count, ids, vectors, (uint32_t)vector_type,
                           new_ids);
}

OMENDB_API int omendb_put(omendb_collection *collection, omendb_txn *txn,
                          const omendb_record *record, uint64_t *id)
{
    return api_write_one(collection, txn, CHANGE_PUT, record, id);
}

OMENDB_API int omendb_put_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, const void *vectors, int vector_type,
                                uint64_t *new_ids)
{
    return api_write_batch(collection, txn, CHANGE_PUT, count, ids, vectors, (uint32_t)vector_type,
                           new_ids);
}

static int api_try_delete(omendb_collection *collection, omendb_txn *txn, size_t count,
                          const uint64_t *ids, int skip_missing, size_t *deleted)
{
    struct records records;
    int code = records_prepare(collection->collection, CHANGE_DELETE, count, ids, NULL, OMENDB_F32,
                               &records);
    records.change.skip_missing = skip_missing;
    if (code == OMENDB_OK)
        code = records_commit(&records, txn);
    if (code == OMENDB_OK && deleted != NULL)
        *deleted = records.change.affected;
    records_destroy(&records);
    return code;
}

static int api_delete(omendb_collection *collection, omendb_txn *txn, size_t count,
                      const uint64_t *ids, int skip_missing, size_t *deleted)
{
    int code = api_writing(collection, txn);
    if (deleted != NULL)
        *deleted = 0;
    if (code != OMENDB_OK || count == 0)
        return code;
    if (ids == NULL)
        return api_null("ids");
    struct work_wait wait = {0};
    code = api_try_delete(collection, txn, count, ids, skip_missing, deleted);
    while (code == OMENDB_NOMEM && work_relieve(collection->db, &wait))
        code = api_try_delete(collection, txn, count, ids, skip_missing, deleted);
    return code;
}

OMENDB_API int omendb_delete(omendb_collection *collection, omendb_txn *txn, uint64_t id)
{
    if (id == OMENDB_ID_AUTO)
        return error_set(OMENDB_NOTFOUND, "OMENDB_ID_AUTO is the id of no record");
    return api_delete(collection, txn, 1, &id, 0, NULL);
}

OMENDB_API int omendb_delete_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                   const uint64_t *ids, size_t *deleted)
{
    return api_delete(collection, txn, count, ids, 1, deleted);
}

/* ------------------------------------------------------------------ reading */

/* The state that a call reads: the transaction's, or the newest. */
static struct version *api_version(omendb_collection *collection, const omendb_txn *txn,
                                   uint64_t *commit)
{
    if (txn == NULL)
        return version_acquire_newest(collection->collection, commit);
    *commit = txn->snapshot;
    return version_acquire(collection->collection);
}

static int api_reading(omendb_collection *collection, const omendb_txn *txn)
{
    int code = api_collection(collection);
    return code == OMENDB_OK ? api_txn(collection, txn) : code;
}

/* The stored vector of a record; points into `version` or the transaction. */
static int api_find_vector(struct collection *collection, const struct version *version,
                           uint64_t commit, const omendb_txn *txn, uint64_t id,
                           const uint8_t **vector)
{
    const struct txn_write *own = txn_find(txn, collection, id);
    struct location location = {NULL, NULL, 0};
    *vector = NULL;
    if (own != NULL) {
        *vector = own->vector;
    } else {
        int code = version_locate(version, id, commit, &location);
        if (code == OMENDB_OK && (location.memtable != NULL || location.segment != NULL))
            code = location_vector(&location, vector);
        if (code != OMENDB_OK)
            return code;
    }
    return *vector != NULL ? OMENDB_OK
                           : error_set(OMENDB_NOTFOUND, "id %llu is not in collection \"%s\"",
                                       (unsigned long long)id, collection->name);
}

OMENDB_API int omendb_get(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                          int vector_type, void *vector)
{
    const uint8_t *stored;
    uint64_t commit;
    int code = api_reading(collection, txn);
    if (code == OMENDB_OK)
        code = records_check_type((uint32_t)vector_type);
    if (code != OMENDB_OK)
        return code;
    struct version *version = api_version(collection, txn, &commit);
    code = api_find_vector(collection->collection, version, commit, txn, id, &stored);
    if (code == OMENDB_OK && vector != NULL) {
        code = scalar_export(&collection->collection->format, stored, (omendb_scalar)vector_type,
                             vector);
        if (code == OMENDB_INVALID)
            records_refuse_type(collection->collection, vector_type);
    }
    version_release(version);
    return code;
}

OMENDB_API int omendb_count(omendb_collection *collection, omendb_txn *txn, uint64_t *count)
{
    uint64_t commit;
    int code = api_reading(collection, txn);
    if (code != OMENDB_OK)
        return code;
    if (count == NULL)
        return api_null("count");
    struct version *version = api_version(collection, txn, &commit);
    code = version_count(version, commit, count);
    for (size_t i = 0; txn != NULL && i < txn->write_count && code == OMENDB_OK; i++) {
        const struct txn_write *write = &txn->writes[i];
        if (write->collection != collection->collection)
            continue;
        *count += write->vector != NULL && write->added;
        *count -= write->vector == NULL && !write->added;
    }
    version_release(version);
    return code;
}

OMENDB_API int omendb_scan(omendb_collection *collection, omendb_txn *txn, uint64_t from,
                           uint64_t to, omendb_rows **rows)
{
    if (rows == NULL)
        return api_null("rows");
    *rows = NULL;
    int code = api_reading(collection, txn);
    return code == OMENDB_OK ? rows_open(collection->collection, txn, from, to, rows) : code;
}

OMENDB_API int omendb_rows_next(omendb_rows *rows, uint64_t *id, int vector_type, void *vector)
{
    if (!rows_is_valid(rows))
        return error_set(OMENDB_MISUSE, "rows is not an open cursor");
    int code = api_database(rows_database(rows));
    if (code != OMENDB_OK)
        return code;
    code = rows_next(rows, id, vector_type, vector);
    return code == OMENDB_INVALID ? records_refuse_type(rows_collection(rows), vector_type) : code;
}

OMENDB_API void omendb_rows_close(omendb_rows *rows)
{
    if (!rows_is_valid(rows))
        return;
    omendb *db = rows_database(rows);
    if (db->process != platform_process())
        return;
    rows_free(rows);
    atomic_fetch_sub(&db->open_cursors, 1);
    database_child_done(db);
}

/* ------------------------------------------------------------------ search */

static int api_check_query(omendb_collection *collection, const omendb_txn *txn,
                           const omendb_query *query, int one)
{
    int code = api_reading(collection, txn);
    if (code != OMENDB_OK)
        return code;
    if (query == NULL)
        return api_null("query");
    code = api_struct_read(query, sizeof *query, "query");
    if (code != OMENDB_OK)
        return code;
    if (query->vector == NULL && query->id == OMENDB_ID_AUTO && one)
        return error_set(OMENDB_INVALID, "query.vector is NULL and query.id is not set");
    if (query->k == 0)
        return error_set(OMENDB_INVALID, "query.k is 0; at least 1 hit must be asked for");
    if (query->ef > 100000)
        return error_set(OMENDB_INVALID, "query.ef is %u; at most 100,000: use exact", query->ef);
    if (query->stretch != 0.0f && !(query->stretch >= 1.0f && query->stretch <= FLT_MAX))
        return error_set(OMENDB_INVALID, "query.stretch is %g; it must be 0, or 1 and more",
                         (double)query->stretch);
    if (query->recall != 0.0f && !(query->recall > 0.0f && query->recall <= 1.0f))
        return error_set(OMENDB_INVALID,
                         "query.recall is %g; it must be above 0 and at most 1, or 0 to go by ef",
                         (double)query->recall);
    if (query->recall != 0.0f && (query->ef != 0 || query->stretch != 0.0f))
        return error_set(OMENDB_INVALID,
                         "query.recall is %g beside an ef of %u and a stretch of %g; set one",
                         (double)query->recall, query->ef, (double)query->stretch);
    if (query->reserved != 0)
        return error_set(OMENDB_INVALID, "query.reserved is %u; it must be 0", query->reserved);
    if (query->exact > 1 || query->use_radius > 1)
        return error_set(OMENDB_INVALID, "query.exact is %u and use_radius %u; each is 0 or 1",
                         query->exact, query->use_radius);
    if (isnan(query->radius))
        return error_set(OMENDB_INVALID, "query.radius is NaN");
    if (!query->use_radius && query->radius != 0.0f)
        return error_set(OMENDB_INVALID, "query.radius is %g, but use_radius is 0",
                         (double)query->radius);
    if (query->explain != NULL && one)
        return api_struct(query->explain->struct_size, sizeof *query->explain, "explain");
    return OMENDB_OK;
}

static void api_request(omendb_collection *collection, omendb_txn *txn, const omendb_query *query,
                        struct search_request *request)
{
    *request = (struct search_request){.collection = collection->collection,
                                       .excluded_id = OMENDB_ID_AUTO};
    request->txn = txn != NULL && txn->write_count != 0 ? txn : NULL;
    request->k = query->k;
    request->stretch = query->stretch;
    request->ef = query->ef != 0          ? query->ef
                  : query->stretch > 0.0f ? API_STRETCH_EF
                                          : collection->collection->schema.ef;
    request->exact = query->exact != 0;
    request->use_radius = query->use_radius != 0;
    request->radius = query->radius;
    request->recall = query->recall;
    if (query->timeout_us != 0) {
        const omendb_vfs *vfs = collection->db->storage.vfs;
        uint64_t now = vfs->now_us(vfs->context);
        request->deadline_us =
            query->timeout_us > UINT64_MAX - now ? UINT64_MAX : now + query->timeout_us;
    }
}

OMENDB_API int omendb_search(omendb_collection *collection, omendb_txn *txn,
                             const omendb_query *query, uint64_t *ids, float *distances,
                             size_t *count)
{
    struct search_request request;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    if (count == NULL || ids == NULL)
        return api_null(count == NULL ? "count" : "ids");
    *count = 0;
    int code = api_check_query(collection, txn, query, 1);
    if (code != OMENDB_OK)
        return code;
    omendb *db = collection->db;
    const omendb_vfs *vfs = db->storage.vfs;
    uint64_t begin = query->explain == NULL ? 0 : vfs->now_us(vfs->context);
    struct scratch *scratch = scratch_take(db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    api_request(collection, txn, query, &request);
    struct version *version = api_version(collection, txn, &request.commit);
    request.version = version;
    if (query->vector == NULL) {
        request.excluded_id = query->id;
        code = api_find_vector(collection->collection, version, request.commit, txn, query->id,
                               &request.vector);
    } else {
        code = scratch_reserve(scratch, 0, 0, collection->collection->vector_bytes);
        if (code == OMENDB_OK)
            code = records_convert(collection->collection, query->vector, query->vector_type,
                                   scratch->vector, RECORDS_ALONE);
        request.vector = scratch->vector;
    }
    if (code == OMENDB_OK)
        code = search_run(&request, scratch, ids, distances, count, &explain);
    version_release(version);
    scratch_give(db, scratch);
    if (query->explain != NULL && code == OMENDB_OK) {
        explain.time_us = vfs->now_us(vfs->context) - begin;
        *query->explain = explain;
    }
    return code;
}

struct api_batch {
    const struct search_request *request;
    const uint8_t *vectors;
    size_t vector_bytes;
    uint32_t vector_type;
    size_t count;
    uint64_t *ids;
    float *distances;
    size_t *counts;
};

static int api_search_row(const struct api_batch *batch, uint64_t index, struct scratch *scratch)
{
    struct search_request request = *batch->request;
    struct collection *collection = request.collection;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint64_t *ids = batch->ids + index * request.k;
    float *distances = batch->distances == NULL ? NULL : batch->distances + index * request.k;
    size_t count = 0;
    int code = search_check_deadline(&request);
    if (code == OMENDB_OK)
        code = scratch_reserve(scratch, 0, 0, collection->vector_bytes);
    if (code == OMENDB_OK)
        code = records_convert(collection, batch->vectors + index * batch->vector_bytes,
                               batch->vector_type, scratch->vector, index);
    request.vector = scratch->vector;
    if (code == OMENDB_OK)
        code = search_run(&request, scratch, ids, distances, &count, &explain);
    for (size_t i = count; i < request.k; i++) {
        ids[i] = OMENDB_ID_AUTO;
        if (distances != NULL)
            distances[i] = INFINITY;
    }
    if (batch->counts != NULL)
        batch->counts[index] = count;
    return code;
}

/* Threads take the queries in runs, so that they do not meet at each. */
#define API_BATCH_RUN 16

static int api_search_run(void *context, uint64_t index)
{
    const struct api_batch *batch = context;
    omendb *db = batch->request->collection->db;
    uint64_t first = index * API_BATCH_RUN;
    uint64_t left = batch->count - first, run = left < API_BATCH_RUN ? left : API_BATCH_RUN;
    struct scratch *scratch = scratch_take(db);
    int code = scratch == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (uint64_t i = 0; i < run && code == OMENDB_OK; i++)
        code = api_search_row(batch, first + i, scratch);
    scratch_give(db, scratch);
    return code;
}

OMENDB_API int omendb_search_batch(omendb_collection *collection, omendb_txn *txn,
                                   const omendb_query *query, const void *vectors, size_t count,
                                   uint64_t *ids, float *distances, size_t *counts)
{
    struct search_request request;
    int code = api_check_query(collection, txn, query, 0);
    if (code != OMENDB_OK || count == 0)
        return code;
    if (vectors == NULL || ids == NULL)
        return api_null(vectors == NULL ? "vectors" : "ids");
    code = records_check_type(query->vector_type);
    if (code != OMENDB_OK)
        return code;
    if (memory_multiply(memory_multiply(count, query->k), sizeof *ids) > PTRDIFF_MAX)
        return error_set(OMENDB_TOOBIG, "%zu queries of %zu hits are more than ids can hold", count,
                         query->k);
    api_request(collection, txn, query, &request);
    struct version *version = api_version(collection, txn, &request.commit);
    request.version = version;
    struct api_batch batch = {
        &request,
        vectors,
        scalar_bytes((omendb_scalar)query->vector_type, collection->collection->schema.dim),
        query->vector_type,
        count,
        ids,
        distances,
        counts};
    code = work_parallel(collection->db, (count - 1) / API_BATCH_RUN + 1, api_search_run, &batch);
    version_release(version);
    return code;
}

OMENDB_API int omendb_calibrate(omendb_collection *collection, const void *queries, size_t count,
                                int query_type,
                                int (*progress)(void *context, uint64_t done, uint64_t total),
                                void *context)
{
    int code = api_writing(collection, NULL);
    if (code != OMENDB_OK)
        return code;
    if (queries == NULL)
        return api_null("queries");
    if (count < OMENDB_CALIBRATE_MIN || count > OMENDB_CALIBRATE_MAX)
        return error_set(OMENDB_INVALID, "%zu queries; a calibration takes %d to %d", count,
                         OMENDB_CALIBRATE_MIN, OMENDB_CALIBRATE_MAX);
    struct collection *inside = collection->collection;
    uint8_t *converted = NULL;
    size_t bytes = memory_multiply(count, inside->vector_bytes);
    code = records_check_type((uint32_t)query_type);
    if (code == OMENDB_OK) {
        converted = memory_alloc(&collection->db->memory, bytes);
        code = converted == NULL ? OMENDB_NOMEM : OMENDB_OK;
    }
    size_t given = scalar_bytes((omendb_scalar)query_type, inside->schema.dim);
    for (size_t i = 0; i < count && code == OMENDB_OK; i++)
        code = records_convert(inside, (const uint8_t *)queries + i * given, (uint32_t)query_type,
                               converted + i * inside->vector_bytes, i);
    if (code == OMENDB_OK)
        code = calibrate_collection(inside, converted, (uint32_t)count, progress, context);
    if (converted != NULL)
        memory_free(&collection->db->memory, converted, bytes);
    return code;
}

#undef API_STRUCT_MAX
#undef API_STRETCH_EF
#undef API_BATCH_RUN
