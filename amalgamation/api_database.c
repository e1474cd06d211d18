/* api_database.c: the public calls about the library and a whole database. As in all api modules,
 * arguments are checked here and the work is done elsewhere. */
#include "api.h"
#include "lifecycle.h"
#include "salvage.h"

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

OMENDB_API void omendb_facet_init(omendb_facet *facet)
{
    static const omendb_facet initial = OMENDB_FACET_INIT;
    if (facet != NULL)
        *facet = initial;
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

OMENDB_API void omendb_salvage_result_init(omendb_salvage_result *result)
{
    static const omendb_salvage_result initial = OMENDB_SALVAGE_RESULT_INIT;
    if (result != NULL)
        *result = initial;
}

OMENDB_API void omendb_collection_stats_init(omendb_collection_stats *stats)
{
    static const omendb_collection_stats initial = OMENDB_COLLECTION_STATS_INIT;
    if (stats != NULL)
        *stats = initial;
}

OMENDB_API void omendb_field_init(omendb_field *field)
{
    static const omendb_field initial = OMENDB_FIELD_INIT;
    if (field != NULL)
        *field = initial;
}

OMENDB_API void omendb_limits_init(omendb_limits *limits)
{
    static const omendb_limits initial = OMENDB_LIMITS_INIT;
    if (limits != NULL)
        *limits = initial;
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
    uint64_t filters = atomic_load(&db->open_filters);
    uint64_t children = atomic_load(&db->children), others = transactions + cursors + filters;
    const struct api_count counts[] = {
        {children > others ? children - others : 0, "collection", "collections"},
        {transactions, "transaction", "transactions"},
        {cursors, "cursor", "cursors"},
        {filters, "filter", "filters"},
    };
    return api_busy(counts, 4);
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
    OMENDB_YIELD("omendb_release, marked");
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
        rows += search_total_rows(atomic_load(&db->catalog.items[i]->version), &largest) +
                rest_rows(db->catalog.items[i]);
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
    code = compact_run(db, &collection, 1, COMPACT_EVERYTHING, tell, progress, &merged);
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
        code = rest_end(collection);
        if (code == OMENDB_OK)
            code = api_optimize_collection(db, collection, &told);
        rest_release(collection);
    }
    return code == OMENDB_DONE ? OMENDB_OK : code;
}

OMENDB_API int omendb_purge(omendb *db, const char *collection)
{
    int code = api_database(db);
    if (code == OMENDB_OK && collection != NULL)
        code = api_name(collection, "a collection");
    if (code != OMENDB_OK)
        return code;
    memory_begin_maintenance();
    code = purge_run(db, collection);
    memory_end_maintenance();
    return code;
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

static int api_check_salvage_paths(const char *path, const char *new_path)
{
    if (path == NULL || new_path == NULL)
        return api_null(path == NULL ? "path" : "new_path");
    if (path[0] == 0 || strcmp(path, ":memory:") == 0)
        return error_set(OMENDB_INVALID, "what is salvaged is a directory, not \"%s\"", path);
    if (new_path[0] == 0 || strcmp(new_path, ":memory:") == 0)
        return error_set(OMENDB_INVALID, "salvage needs the path of a new directory, not \"%s\"",
                         new_path);
    return OMENDB_OK;
}

OMENDB_API int omendb_salvage(const char *path, const char *new_path, const omendb_options *options,
                              void (*report)(void *context, const char *line), void *context,
                              omendb_salvage_result *result)
{
    omendb_options defaults = OMENDB_OPTIONS_INIT;
    omendb_salvage_result unwanted = OMENDB_SALVAGE_RESULT_INIT;
    result = result == NULL ? &unwanted : result;
    options = options == NULL ? &defaults : options;
    int code = api_struct(result->struct_size, sizeof *result, "result");
    if (code != OMENDB_OK)
        return code;
    *result = (omendb_salvage_result){.struct_size = sizeof *result};
    code = api_check_salvage_paths(path, new_path);
    if (code == OMENDB_OK)
        code = api_check_options(options);
    return code == OMENDB_OK ? salvage_run(path, new_path, options, report, context, result) : code;
}

/* What transactions keep. */
static int api_measure_pins(omendb *db, omendb_stats *stats)
{
    const omendb_vfs *vfs = db->storage.vfs;
    struct space_list list;
    struct space space;
    uint64_t begun;
    stats->open_cursors = atomic_load(&db->open_cursors);
    stats->open_transactions = txn_count(db, &stats->oldest_commit, &begun);
    if (stats->open_transactions == 0)
        return OMENDB_OK;
    uint64_t now = vfs->now_us(vfs->context);
    stats->oldest_age_us = now > begun ? now - begun : 0;
    memory_begin_reading();
    int code = space_list_collections(db, &list);
    memory_end_reading();
    if (code == OMENDB_OK) {
        platform_mutex_lock(&db->maintenance_mutex);
        space_measure(db, &list, 0, &space);
        platform_mutex_unlock(&db->maintenance_mutex);
        stats->pinned_rows = space.pinned_rows;
        stats->pinned_bytes = space.pinned + space.pinned_memory;
    }
    space_free_list(db, &list);
    return code;
}

static void api_count_collections(omendb *db, omendb_stats *stats)
{
    for (size_t i = 0;; i++) {
        uint64_t commit, count = 0;
        int rests = 0;
        platform_mutex_lock(&db->commit_mutex);
        struct collection *collection =
            i < db->catalog.count ? collection_reference(db->catalog.items[i]) : NULL;
        if (collection != NULL && collection->rest != NULL) {
            rests = 1;
            count = rest_rows(collection) - collection->rest->dead; /* ended for everybody */
        }
        platform_mutex_unlock(&db->commit_mutex);
        if (collection == NULL)
            return;
        if (!rests) {
            struct version *version = version_acquire_newest(collection, &commit);
            version_count(version, commit, &count);
            version_release(version);
        }
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
    stats->backup_bytes = atomic_load(&db->backup_bytes);
    stats->backup_kept_bytes = atomic_load(&db->backup_kept_bytes);
    platform_mutex_lock(&db->maintenance_mutex);
    stats->file_bytes = stats->wal_bytes;
    for (uint32_t i = 0; i < db->published.file_count; i++)
        stats->file_bytes += db->published.files[i].size;
    code = collect_measure_held(db, &stats->held_bytes);
    platform_mutex_unlock(&db->maintenance_mutex);
    stats->prepared_transactions = prepared_count_waiting(db);
    api_count_collections(db, stats);
    if (code != OMENDB_OK)
        return code;
    struct work_wait wait = {0};
    do {
        code = api_measure_pins(db, stats);
    } while (code == OMENDB_NOMEM && work_relieve(db, &wait));
    return code;
}
