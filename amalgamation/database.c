/* database.c: opening and closing of a database, and what a fork does to it.
 *
 * A list of the open databases of the process serves two ends. A directory is opened for writing
 * once, also where file locks are owned by the process and would let a second open pass. And fork:
 * in the child each one's lock descriptor is closed, so that a parent that dies and starts again is
 * not locked out by its child; everything else is left as it is, since other threads may have been
 * in the midst of anything, and every call finds out by the process number that it is in a child.
 */
#include "database.h"
#include "lifecycle.h"

#include <string.h>

static pthread_mutex_t database_list_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t database_fork_once = PTHREAD_ONCE_INIT;
static omendb *database_list;
static struct database_held *database_held_list;

static void database_before_fork(void)
{
    pthread_mutex_lock(&database_list_mutex);
}

static void database_after_fork_in_parent(void)
{
    pthread_mutex_unlock(&database_list_mutex);
}

static void database_after_fork_in_child(void)
{
    for (omendb *db = database_list; db != NULL; db = db->next_open) {
        if (db->lock_file.handle != NULL)
            db->storage.vfs->close(db->storage.vfs->context, db->lock_file.handle);
        if (db->manifest_lock.handle != NULL)
            db->storage.vfs->close(db->storage.vfs->context, db->manifest_lock.handle);
        if (db->cursor_lock.handle != NULL)
            db->storage.vfs->close(db->storage.vfs->context, db->cursor_lock.handle);
        db->lock_file.handle = NULL;
        db->manifest_lock.handle = NULL;
        db->cursor_lock.handle = NULL;
    }
    for (struct database_held *held = database_held_list; held != NULL; held = held->next) {
        if (held->file->handle != NULL)
            held->vfs->close(held->vfs->context, held->file->handle);
        held->file->handle = NULL;
    }
    database_held_list = NULL; /* on stacks of threads that the child does not have */
    pthread_mutex_unlock(&database_list_mutex);
}

static void database_register_fork(void)
{
    pthread_atfork(database_before_fork, database_after_fork_in_parent,
                   database_after_fork_in_child);
}

static void database_enlist(omendb *db)
{
    pthread_once(&database_fork_once, database_register_fork);
    pthread_mutex_lock(&database_list_mutex);
    db->next_open = database_list;
    database_list = db;
    pthread_mutex_unlock(&database_list_mutex);
}

static void database_delist(omendb *db)
{
    pthread_mutex_lock(&database_list_mutex);
    for (omendb **link = &database_list; *link != NULL; link = &(*link)->next_open) {
        if (*link == db) {
            *link = db->next_open;
            break;
        }
    }
    pthread_mutex_unlock(&database_list_mutex);
}

OMENDB_INTERNAL void database_hold(struct database_held *held)
{
    pthread_mutex_lock(&database_list_mutex);
    held->next = database_held_list;
    database_held_list = held;
    pthread_mutex_unlock(&database_list_mutex);
}

OMENDB_INTERNAL void database_let_go(struct database_held *held)
{
    pthread_mutex_lock(&database_list_mutex);
    for (struct database_held **link = &database_held_list; *link != NULL; link = &(*link)->next) {
        if (*link == held) {
            *link = held->next;
            break;
        }
    }
    pthread_mutex_unlock(&database_list_mutex);
}

/* Adds the path to the sentence: last, since a long one may be cut. */
static int database_name_path(int code, const char *path)
{
    return error_set(code, "%s (\"%s\")", error_text(), path);
}

/* Claims the directory for writing in this process. */
static int database_claim(omendb *db, const char *path)
{
    const omendb_vfs *vfs = db->storage.vfs;
    char identity[sizeof db->identity] = "";
    if (db->read_only || db->in_memory ||
        vfs->identity(vfs->context, db->storage.directory, identity, sizeof identity) != OMENDB_OK)
        return OMENDB_OK; /* a vfs that cannot tell relies on its locks */
    int code = OMENDB_OK;
    pthread_mutex_lock(&database_list_mutex);
    for (const omendb *other = database_list; other != NULL; other = other->next_open) {
        /* What a parent had open is not open in this process. */
        if (other != db && other->process == db->process && other->storage.vfs == vfs &&
            strcmp(other->identity, identity) == 0)
            code = error_set(OMENDB_BUSY, "the database is open for writing in this process "
                                          "already; share that handle, or close it");
    }
    if (code == OMENDB_OK)
        memcpy(db->identity, identity, sizeof identity);
    pthread_mutex_unlock(&database_list_mutex);
    return code == OMENDB_OK ? code : database_name_path(code, path);
}

/* ------------------------------------------------------------------ making and freeing */

static int database_init_locks(omendb *db)
{
    int code = platform_mutex_init(&db->maintenance_mutex);
    if (code == OMENDB_OK)
        code = platform_mutex_init(&db->commit_mutex);
    if (code == OMENDB_OK)
        code = platform_mutex_init(&db->sync_mutex);
    if (code == OMENDB_OK)
        code = platform_mutex_init(&db->txn_mutex);
    if (code == OMENDB_OK)
        code = platform_mutex_init(&db->edit_mutex);
    if (code == OMENDB_OK)
        code = platform_condition_init(&db->sync_condition);
    if (code == OMENDB_OK)
        code = platform_condition_init(&db->edit_condition);
    return code;
}

static void database_free_collections(omendb *db)
{
    prepared_clear(db);
    catalog_destroy(db, &db->catalog);
    version_release(db->resting);
    scratch_drop_idle(db);
}

static void database_free_files(omendb *db)
{
    if (db->wal != NULL) {
        wal_close(db->wal);
        memory_free(&db->memory, db->wal, sizeof *db->wal);
    }
    manifest_destroy(&db->memory, &db->published);
    storage_close(&db->storage, &db->manifest_lock);
    storage_close(&db->storage, &db->cursor_lock);
    /* The lock goes last: whoever gets it next finds nothing half done. Closing alone would leave
     * it to a child that was forked a moment ago and has not yet closed its copy of the descriptor.
     */
    if (db->lock_file.handle != NULL)
        db->storage.vfs->lock(db->storage.vfs->context, db->lock_file.handle, OMENDB_LOCK_NONE);
    storage_close(&db->storage, &db->lock_file);
    if (db->storage.directory != NULL)
        db->storage.vfs->close_directory(db->storage.vfs->context, db->storage.directory);
    if (db->in_memory)
        vfs_memory_destroy(&db->memory_vfs);
}

OMENDB_INTERNAL void database_free(omendb *db)
{
    struct memory outer;
    database_delist(db);
    work_stop(db);
    work_destroy(db);
    database_free_collections(db);
    database_free_files(db);
    platform_mutex_destroy(&db->maintenance_mutex);
    platform_mutex_destroy(&db->commit_mutex);
    platform_mutex_destroy(&db->sync_mutex);
    platform_mutex_destroy(&db->txn_mutex);
    platform_mutex_destroy(&db->edit_mutex);
    platform_condition_destroy(&db->sync_condition);
    platform_condition_destroy(&db->edit_condition);
    db->magic = 0;
    memory_init(&outer, &db->allocator, 0);
    memory_free_aligned(&outer, db, sizeof *db);
}

static void database_set_options(omendb *db, const omendb_options *options)
{
    db->magic = DATABASE_MAGIC;
    db->process = platform_process();
    db->read_only = options->read_only != 0;
    db->sync = options->sync;
    db->wal_limit = options->wal_limit == 0 ? UINT64_C(64) << 20 : options->wal_limit;
    if (db->wal_limit > UINT64_MAX / 4) /* twice as much is a number, too */
        db->wal_limit = UINT64_MAX / 4;
    db->tail_limit = options->tail_limit == 0 ? UINT64_C(8) << 20 : options->tail_limit;
    if (db->tail_limit > UINT64_MAX / 64)
        db->tail_limit = UINT64_MAX / 64;
    db->stall_timeout_us =
        (options->stall_timeout_ms == 0 ? UINT64_C(10000) : options->stall_timeout_ms) * 1000;
    db->log = options->log;
    db->log_context = options->log_context;
    db->storage.memory = &db->memory;
    db->storage.io = options->io;
    db->storage.sync = options->sync;
    db->storage.vfs = options->vfs == NULL ? omendb_default_vfs() : options->vfs;
}

/* What a checkpoint needs beside the rows that it writes: buffers of two writers and of the reader
 * of the log, and 26 bytes a row, where a row in memory takes 60 at least. What is read instead of
 * mapped is for a moment there twice. */
static uint64_t database_reserve(const omendb *db, uint64_t limit)
{
    if (limit == 0 || db->in_memory || db->read_only)
        return 0;
    return (UINT64_C(3) << 20) + limit / (db->storage.io == OMENDB_IO_MAP ? 4 : 2);
}

static int database_open_directory(omendb *db, const char *path, const omendb_options *options)
{
    if (strcmp(path, ":memory:") == 0) {
        if (options->read_only || options->must_exist)
            return error_set(OMENDB_INVALID, "\":memory:\" begins empty: it can be opened neither "
                                             "read_only nor with must_exist");
        int code = vfs_memory_create(&db->memory, &db->memory_vfs);
        if (code != OMENDB_OK)
            return code;
        db->in_memory = 1;
        db->storage.vfs = &db->memory_vfs;
    }
    int create = !options->read_only && !options->must_exist;
    int code = db->storage.vfs->open_directory(db->storage.vfs->context, path, create,
                                               &db->storage.directory);
    if (code == OMENDB_OK)
        return code;
    db->storage.directory = NULL;
    if (code == OMENDB_NOTFOUND)
        return error_set(
            code,
            create ? "\"%s\" cannot be created: its parent directory is not there, or takes none"
                   : "there is no database at \"%s\"",
            path);
    if (code == OMENDB_FORMAT)
        return error_set(code, "\"%s\" is not a directory; a database is one", path);
    return error_set(code, "the directory \"%s\" cannot be opened", path);
}

static int database_recover(omendb *db, const char *path, const omendb_options *options)
{
    memory_begin_maintenance();
    int code = recover_open(db, options->must_exist != 0);
    memory_end_maintenance();
    return code == OMENDB_OK ? code : database_name_path(code, path);
}

/* What the process before left to be done. Nothing else runs yet. */
static void database_resume(omendb *db)
{
    for (size_t i = 0; i < db->catalog.count && !db->read_only; i++) {
        struct collection *collection = db->catalog.items[i];
        if (atomic_load(&collection->version)->memtable_count != 0)
            work_notice_index(collection);
        work_notice_merge(collection);
    }
    rest_idle(db);
}

OMENDB_INTERNAL int database_open(const char *path, const omendb_options *options, omendb **db)
{
    struct memory outer;
    *db = NULL;
    memory_init(&outer, options->allocator, 0);
    omendb *made = memory_alloc_aligned(&outer, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->allocator = outer.hooks;
    memory_init(&made->memory, options->allocator, options->memory_limit);
    database_set_options(made, options);
    hash_make_seed(&made->hash_seed);
    database_enlist(made);
    int code = database_init_locks(made);
    if (code == OMENDB_OK)
        code = database_open_directory(made, path, options);
    if (code == OMENDB_OK)
        code = database_claim(made, path);
    made->memory.reserve = database_reserve(made, options->memory_limit);
    /* Recovery uses the queues, but no thread may run before it is done. */
    if (code == OMENDB_OK)
        code = work_create(made, made->read_only ? 0 : options->threads);
    if (code == OMENDB_OK)
        code = database_recover(made, path, options);
    if (code == OMENDB_OK) {
        database_resume(made);
        code = work_start(made);
    }
    if (code != OMENDB_OK) {
        database_free(made);
        return code;
    }
    *db = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL int database_close(omendb *db)
{
    int code = OMENDB_OK;
    if (db->process != platform_process()) {
        /* A thread that the child does not have may hold any lock, or wait for any condition, for
         * ever: nothing of it can be freed. */
        database_delist(db);
        db->magic = 0;
        return OMENDB_OK;
    }
    work_stop(db);
    int dirty = db->appended_commit > atomic_load(&db->checkpoint_commit);
    if (dirty && !db->read_only && !db->in_memory && !atomic_load(&db->poisoned))
        code = work_checkpoint(db, 1);
    database_free(db);
    return code;
}

OMENDB_INTERNAL void database_child_done(omendb *db)
{
    OMENDB_YIELD("database_child_done");
    if (atomic_fetch_sub(&db->children, 1) == (DATABASE_RELEASED | 1))
        database_close(db);
}
