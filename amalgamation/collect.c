/* collect.c: files that nobody needs any more. A manifest that was published before another stays,
 * and with it what it names, until no reader of another process holds it by a lock; the numbers of
 * those that may be held are kept (retained). Everything here is under maintenance_mutex. */
#include "database.h"

#include <string.h>

#define COLLECT_DOOMED 32 /* files unlinked between looks at the directory */

/* The former manifest: its files stay until it is known that no reader of another process holds it.
 */
OMENDB_INTERNAL void collect_retain(omendb *db, uint64_t number)
{
    if (number == 0)
        return;
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        if (db->retained[i] == 0) {
            db->retained[i] = number;
            return;
        }
    }
    db->retained_overflow = 1;
}

static int collect_is_retained(const omendb *db, uint64_t number)
{
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        if (db->retained[i] == number)
            return 1;
    }
    return 0;
}

static int collect_note_manifest(void *context, const char *name)
{
    omendb *db = context;
    enum storage_kind kind;
    uint64_t number;
    if (storage_parse_name(name, &kind, &number) && kind == STORAGE_MANIFEST &&
        number != db->published.number && !collect_is_retained(db, number))
        collect_retain(db, number);
    return 0;
}

/* After there was no place for one: perhaps there is now. */
static void collect_find_manifests(omendb *db)
{
    db->retained_overflow = 0;
    if (db->storage.vfs->list(db->storage.vfs->context, db->storage.directory,
                              collect_note_manifest, db) != OMENDB_OK)
        db->retained_overflow = 1;
}

OMENDB_INTERNAL void collect_release_manifests(omendb *db)
{
    uint32_t left = 0;
    if (db->retained_overflow)
        collect_find_manifests(db);
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        struct storage_file file = {0};
        char name[STORAGE_NAME_BYTES];
        if (db->retained[i] == 0)
            continue;
        storage_name(STORAGE_MANIFEST, db->retained[i], name);
        int code = storage_open(&db->storage, name, OMENDB_OPEN_READ | OMENDB_OPEN_WRITE, &file);
        if (code == OMENDB_OK) {
            code =
                db->storage.vfs->lock(db->storage.vfs->context, file.handle, OMENDB_LOCK_EXCLUSIVE);
            if (code == OMENDB_OK || code == OMENDB_UNSUPPORTED)
                storage_unlink(&db->storage, name);
            storage_close(&db->storage, &file);
        }
        /* Not being able to ask is no answer: a reader may hold it. */
        if (code == OMENDB_OK || code == OMENDB_UNSUPPORTED || code == OMENDB_NOTFOUND)
            db->retained[i] = 0;
        left += db->retained[i] != 0;
    }
    atomic_store(&db->retained_count, left + db->retained_overflow);
}

/* Whether the published manifest, or what this process is about to publish, leads to it. */
static int collect_is_in_force(const omendb *db, enum storage_kind kind, uint64_t number)
{
    if (kind == STORAGE_WAL)
        return number >= db->published.wal_number;
    for (size_t i = 0; i < DATABASE_UNPUBLISHED; i++) {
        if (db->unpublished[i] == number)
            return 1;
    }
    return manifest_find_file(&db->published, number) != NULL;
}

OMENDB_INTERNAL enum collect_need collect_file_need(const omendb *db, enum storage_kind kind,
                                                    uint64_t number, uint64_t *manifest)
{
    *manifest = 0;
    if (collect_is_in_force(db, kind, number))
        return COLLECT_IN_FORCE;
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        /* A manifest names only files with smaller numbers than its own. */
        if (db->retained[i] > number)
            *manifest = db->retained[i];
    }
    return *manifest != 0 || db->retained_overflow ? COLLECT_HELD : COLLECT_SUPERFLUOUS;
}

struct collect_held {
    omendb *db;
    size_t count, capacity;
    char (*names)[STORAGE_NAME_BYTES];
};

static int collect_note_held(void *context, const char *name)
{
    struct collect_held *held = context;
    enum storage_kind kind;
    uint64_t number, manifest;
    if (!storage_parse_name(name, &kind, &number) || kind == STORAGE_MANIFEST ||
        collect_file_need(held->db, kind, number, &manifest) != COLLECT_HELD)
        return OMENDB_OK;
    if (held->count == held->capacity) {
        size_t larger = held->capacity * 2 + 16;
        void *moved =
            memory_resize(&held->db->memory, held->names, held->capacity * sizeof *held->names,
                          memory_multiply(larger, sizeof *held->names));
        if (moved == NULL)
            return OMENDB_NOMEM;
        held->names = moved;
        held->capacity = larger;
    }
    memcpy(held->names[held->count++], name, strlen(name) + 1);
    return OMENDB_OK;
}

OMENDB_INTERNAL int collect_measure_held(omendb *db, uint64_t *bytes)
{
    struct storage *storage = &db->storage;
    struct collect_held held = {.db = db};
    *bytes = 0;
    if (atomic_load(&db->retained_count) == 0)
        return OMENDB_OK;
    int code =
        storage->vfs->list(storage->vfs->context, storage->directory, collect_note_held, &held);
    if (code != OMENDB_OK && code != OMENDB_NOMEM)
        error_set(code, "the directory of the database cannot be listed");
    for (size_t i = 0; i < held.count && code == OMENDB_OK; i++) {
        struct storage_file file = {0};
        uint64_t size = 0;
        code = storage_open(storage, held.names[i], OMENDB_OPEN_READ, &file);
        if (code == OMENDB_OK)
            code = storage_size(storage, &file, &size);
        storage_close(storage, &file);
        *bytes += size;
    }
    memory_free(&db->memory, held.names, held.capacity * sizeof *held.names);
    return code;
}

static int collect_is_needed(const omendb *db, enum storage_kind kind, uint64_t number)
{
    uint64_t manifest;
    if (kind == STORAGE_MANIFEST)
        return number == db->published.number || collect_is_retained(db, number);
    /* Those are for purge.c, which overwrites them first. */
    return db->purging || collect_file_need(db, kind, number, &manifest) != COLLECT_SUPERFLUOUS;
}

struct collect_doomed {
    omendb *db;
    size_t count;
    char names[COLLECT_DOOMED][STORAGE_NAME_BYTES];
};

static int collect_doom(void *context, const char *name)
{
    struct collect_doomed *doomed = context;
    enum storage_kind kind;
    uint64_t number;
    if (!storage_parse_name(name, &kind, &number) || collect_is_needed(doomed->db, kind, number))
        return 0;
    memcpy(doomed->names[doomed->count++], name, strlen(name) + 1);
    return doomed->count == COLLECT_DOOMED;
}

/* 1: it is gone. What a purge had to leave, as it was read, is overwritten before, under
 * maintenance_mutex: the next checkpoint, statistics and purge wait for it. That is so but once
 * after a purge that was BUSY, for files that it did not keep from being rewritten; letting go of
 * the mutex would mean to ask anew for each file whether a reader has come to need it. */
static int collect_remove(omendb *db, const char *name)
{
    enum storage_kind kind;
    uint64_t number;
    if (storage_parse_name(name, &kind, &number) && kind != STORAGE_MANIFEST &&
        number < db->overwrite_below) {
        int code =
            shared_file_is_open(db, number) ? OMENDB_BUSY : storage_overwrite(&db->storage, name);
        if (checkpoint_poison_if_unsure(db, code) != OMENDB_OK)
            return 0;
    }
    return storage_unlink(&db->storage, name) == OMENDB_OK;
}

OMENDB_INTERNAL void collect_files(omendb *db)
{
    struct collect_doomed doomed;
    doomed.db = db;
    /* After a failed sync a crash may find a manifest that is not the published one. */
    if (atomic_load(&db->poisoned))
        return;
    collect_release_manifests(db);
    if (db->retained_overflow)
        return;
    do {
        doomed.count = 0;
        db->storage.vfs->list(db->storage.vfs->context, db->storage.directory, collect_doom,
                              &doomed);
        size_t unlinked = 0;
        for (size_t i = 0; i < doomed.count; i++)
            unlinked += (size_t)collect_remove(db, doomed.names[i]);
        if (unlinked < doomed.count)
            break; /* what cannot be unlinked now is tried again after the next checkpoint */
    } while (doomed.count == COLLECT_DOOMED);
}

#undef COLLECT_DOOMED
