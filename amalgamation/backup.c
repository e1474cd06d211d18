/* backup.c: a consistent copy while readers and writers go on; anew, or on top of an earlier one.
 *
 * After a checkpoint the manifest is the database at its commit S. It is held by a shared lock, as
 * a reader of another process holds it, so that merges and checkpoints leave its files. Then files
 * are copied, and last a manifest of the copy's own is published: it says that it is a copy, and
 * which database it is a copy of.
 *
 * Files never change under their number. So where the target is an earlier backup, those that it
 * has are not copied again, but each is read and verified by the checksums of the source's manifest
 * like one that was just copied: a backup that is not verified promises nothing.
 *
 * Invariant: at every moment the target's CURRENT names a manifest whose files are all there and
 * whole. A file is written under a name of its own, synced, and renamed; the manifest is replaced
 * when all are there; what only the former one names goes after that, and not while a reader holds
 * the former one. What a crash leaves behind is found, verified and used by the next backup, or
 * removed by it.
 *
 * A first backup has no CURRENT until its end. What tells whose the files are meanwhile is
 * FORMAT_UNFINISHED_NAME: a header with the id of the source, written and synced before anything
 * else, and removed when CURRENT is durable, or when all else is gone. A backup of the same
 * database takes such a directory over, with what is there and whole; opening it as a database is
 * refused. One that a crash cut off while it was written stands alone, but for LOCK.
 *
 * Somebody's writes are never replaced. A target is accepted if it is empty or its manifest says
 * that it is a copy of this database; who opens a copy for writing publishes a manifest that says
 * that it is none, with a new id (recover_identify), before his first commit. A database that was
 * copied by other means shares its id with the copy: there the two are told apart by a target that
 * is ahead of its source, or has another file under the same number.
 *
 * Memory: one buffer, and the footer of the file that is verified, some 8 bytes a block.
 *
 * A target inside of the database is refused, as the next opening would find a stranger's directory
 * in it. Paths are not compared, which links and ".." lead astray: the directories above the target
 * are opened one after the other, and asked whether they are the database's.
 *
 * Rejected: verifying kept files only on demand (the bytes that age are those). */
#include "database.h"
#include "format.h"

#include <stdio.h>
#include <string.h>

#define BACKUP_BUFFER_BYTES (UINT64_C(1) << 20)
#define BACKUP_LEVELS       64           /* directories above the target that are looked at */
#define BACKUP_NEW          "backup.tmp" /* a file that is being written */
#define BACKUP_NAMES        32           /* of the target that are looked at in one go */

struct backup {
    omendb *db;
    struct storage from; /* the source's files, to be read and not kept */
    struct storage to;
    struct storage_file lock;        /* on the source's manifest */
    struct storage_file target_lock; /* on the target's LOCK */
    struct database_held held_locks[2];
    struct manifest manifest; /* to be published */
    struct manifest former;   /* the target's; number 0: there is none */
    uint64_t log_bytes;       /* of the source's log, to be copied; 0: none of it */
    uint64_t held;            /* largest number of an older manifest that readers of the
                                 target hold; 0: none */
    uint8_t *buffer;
    uint64_t problems;              /* of the file that is verified */
    char problem[ERROR_TEXT_BYTES]; /* the first one */
    uint64_t copied_bytes, kept_bytes;
};

/* A database in memory has no log to copy them from. */
static int backup_refuse_prepared(size_t count)
{
    return count == 0 ? OMENDB_OK
                      : error_set(OMENDB_BUSY,
                                  "the database in memory has %zu prepared transactions, which "
                                  "cannot be saved; give them an outcome and forget them first",
                                  count);
}

/* Before anything is made at the path; what is prepared from now on backup_hold finds. */
static int backup_check_prepared(omendb *db)
{
    platform_mutex_lock(&db->commit_mutex);
    size_t count = db->prepared.count;
    platform_mutex_unlock(&db->commit_mutex);
    return backup_refuse_prepared(count);
}

/* maintenance_mutex. */
static int backup_lock_manifest(struct backup *backup)
{
    struct storage *storage = &backup->db->storage;
    char name[STORAGE_NAME_BYTES];
    storage_name(STORAGE_MANIFEST, backup->manifest.number, name);
    int code = storage_open(storage, name, OMENDB_OPEN_READ, &backup->lock);
    if (code != OMENDB_OK)
        return code;
    code = storage->vfs->lock(storage->vfs->context, backup->lock.handle, OMENDB_LOCK_SHARED);
    return code == OMENDB_OK ? code : error_set(code, "%s cannot be locked", name);
}

/* Takes the manifest as it is and keeps its files from being collected. */
static int backup_hold(struct backup *backup)
{
    omendb *db = backup->db;
    platform_mutex_lock(&db->maintenance_mutex);
    backup->log_bytes = db->prepared_end;
    int code = backup_refuse_prepared(db->prepared_unlogged);
    if (code == OMENDB_OK)
        code = manifest_read(&db->storage, &backup->manifest);
    if (code == OMENDB_OK)
        code = backup_lock_manifest(backup);
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

/* The identity of the directory at a path, or "" where there is none or the vfs cannot tell. */
static void backup_identify(const omendb_vfs *vfs, const char *path, char *text, size_t capacity)
{
    void *directory = NULL;
    text[0] = 0;
    if (vfs->open_directory(vfs->context, path, 0, &directory) != OMENDB_OK)
        return;
    if (vfs->identity(vfs->context, directory, text, capacity) != OMENDB_OK)
        text[0] = 0;
    vfs->close_directory(vfs->context, directory);
}

/* Cuts the last name off: "a/b//" becomes "a/", "b" becomes ".". */
static void backup_cut_name(char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    while (length > 0 && path[length - 1] != '/')
        length--;
    if (length == 0)
        path[length++] = '.';
    path[length] = 0;
}

/* Whether a directory above the target, which may not be there yet, is the database's. `path` has
 * room for BACKUP_LEVELS times "/..", and is overwritten. */
static int backup_is_inside(const struct storage *storage, char *path)
{
    const omendb_vfs *vfs = storage->vfs;
    char own[DATABASE_IDENTITY_BYTES], at[sizeof own], below[sizeof own];
    if (vfs->identity(vfs->context, storage->directory, own, sizeof own) != OMENDB_OK)
        return 0;
    backup_identify(vfs, path, below, sizeof below);
    if (below[0] == 0)
        backup_cut_name(path);
    else
        strcat(path, "/..");
    for (int level = 0; level < BACKUP_LEVELS; level++) {
        backup_identify(vfs, path, at, sizeof at);
        if (at[0] == 0 || strcmp(at, below) == 0) /* the parent of the root is the root */
            return 0;
        if (strcmp(at, own) == 0)
            return 1;
        memcpy(below, at, sizeof below);
        strcat(path, "/..");
    }
    return 0;
}

OMENDB_INTERNAL int backup_check_target(const struct storage *storage, const char *path)
{
    struct memory *memory = storage->memory;
    size_t length = strlen(path), capacity = memory_add(length, 3 * (BACKUP_LEVELS + 1) + 2);
    char *above = memory_alloc(memory, capacity);
    if (above == NULL)
        return OMENDB_NOMEM;
    memcpy(above, path, length + 1);
    int inside = backup_is_inside(storage, above);
    memory_free(memory, above, capacity);
    return inside ? error_set(OMENDB_INVALID,
                              "\"%s\" is inside of the database; give a path outside of it", path)
                  : OMENDB_OK;
}

/* ------------------------------------------------------------------ the target */

struct backup_listing {
    int has_current;
    int has_unfinished;
    int has_numbered; /* segments, overlays, manifests, logs */
    int has_foreign;
};

static int backup_note_name(void *context, const char *name)
{
    struct backup_listing *listing = context;
    enum storage_kind kind;
    uint64_t number;
    if (strcmp(name, "CURRENT") == 0)
        listing->has_current = 1;
    else if (strcmp(name, FORMAT_UNFINISHED_NAME) == 0)
        listing->has_unfinished = 1;
    else if (storage_parse_name(name, &kind, &number) || strcmp(name, BACKUP_NEW) == 0)
        listing->has_numbered = 1;
    else if (strcmp(name, "LOCK") != 0 && strcmp(name, "CURRENT.tmp") != 0)
        listing->has_foreign = 1;
    return 0;
}

static int backup_read_former(struct backup *backup, const char *path)
{
    const struct manifest *former = &backup->former;
    manifest_destroy(&backup->db->memory, &backup->former);
    int code = manifest_read(&backup->to, &backup->former);
    if (code != OMENDB_OK) {
        char text[ERROR_TEXT_BYTES];
        memcpy(text, error_text(), strlen(error_text()) + 1);
        return error_set(code, "\"%s\" is not a backup that can be read (%.300s)", path, text);
    }
    if (!former->copy)
        return error_set(OMENDB_EXISTS,
                         "\"%s\" is a database, or a backup that was written to, and is not "
                         "replaced by a backup; give another path",
                         path);
    if (former->database != backup->db->database_id)
        return error_set(
            OMENDB_MISMATCH,
            "\"%s\" is a backup of database %016llx and not of %016llx; give another path", path,
            (unsigned long long)former->database, (unsigned long long)backup->db->database_id);
    if (former->read_only_features != 0)
        return error_set(OMENDB_FORMAT, "a later version of OmenDB wrote \"%s\"; use that", path);
    return OMENDB_OK;
}

/* Whether the unfinished backup is one of this database, or has nothing in it. */
static int backup_examine_unfinished(struct backup *backup, const struct backup_listing *listing,
                                     const char *path)
{
    uint8_t header[FORMAT_HEADER_BYTES];
    struct storage_file file = {0};
    uint64_t size = UINT64_MAX;
    int code = storage_open(&backup->to, FORMAT_UNFINISHED_NAME, OMENDB_OPEN_READ, &file);
    if (code == OMENDB_OK)
        code = storage_size(&backup->to, &file, &size);
    if (code == OMENDB_OK)
        code = storage_read(&backup->to, &file, 0, header, sizeof header);
    storage_close(&backup->to, &file);
    if (code == OMENDB_OK)
        code = storage_header_check(FORMAT_UNFINISHED_NAME, header, FORMAT_MAGIC_UNFINISHED);
    if (code == OMENDB_OK && format_get64(header + FORMAT_HEADER_OWN) != backup->db->database_id)
        return error_set(
            OMENDB_MISMATCH,
            "\"%s\" holds an unfinished backup of database %016llx and not of %016llx; remove it, "
            "or give another path",
            path, (unsigned long long)format_get64(header + FORMAT_HEADER_OWN),
            (unsigned long long)backup->db->database_id);
    if (code == OMENDB_OK || (size <= sizeof header && !listing->has_numbered))
        return OMENDB_OK;
    return error_set(
        OMENDB_EXISTS,
        "\"%s\" holds an unfinished backup whose %s cannot be read; remove it, or give "
        "another path",
        path, FORMAT_UNFINISHED_NAME);
}

/* Whether the directory may be written to; fills backup->former. Nothing is written yet. */
static int backup_examine(struct backup *backup, const char *path)
{
    struct backup_listing listing = {0};
    int code = backup->to.vfs->list(backup->to.vfs->context, backup->to.directory, backup_note_name,
                                    &listing);
    if (code != OMENDB_OK)
        return error_set(code, "the directory \"%s\" cannot be listed", path);
    if (listing.has_current)
        return backup_read_former(backup, path);
    if (listing.has_foreign)
        return error_set(OMENDB_EXISTS, "\"%s\" is not empty, and no backup; give another path",
                         path);
    if (listing.has_unfinished)
        return backup_examine_unfinished(backup, &listing, path);
    if (listing.has_numbered)
        return error_set(OMENDB_EXISTS,
                         "\"%s\" is not empty: a backup was not finished there; remove it, or give "
                         "another path",
                         path);
    return OMENDB_OK;
}

static int backup_open_directory(struct backup *backup, const char *path)
{
    omendb *db = backup->db;
    const omendb_vfs *vfs = backup->to.vfs;
    char own[sizeof db->identity], other[sizeof own];
    int code = vfs->open_directory(vfs->context, path, 1, &backup->to.directory);
    if (code == OMENDB_OK) {
        if (!db->in_memory &&
            vfs->identity(vfs->context, db->storage.directory, own, sizeof own) == OMENDB_OK &&
            vfs->identity(vfs->context, backup->to.directory, other, sizeof other) == OMENDB_OK &&
            strcmp(own, other) == 0)
            return error_set(OMENDB_EXISTS,
                             "\"%s\" is not empty: it is the database itself; give another path",
                             path);
        return OMENDB_OK;
    }
    backup->to.directory = NULL;
    if (code == OMENDB_FORMAT)
        return error_set(code, "\"%s\" is not a directory; a backup is one", path);
    if (code == OMENDB_NOTFOUND)
        return error_set(
            code, "\"%s\" cannot be created: its parent directory is not there, or takes none",
            path);
    return error_set(code, "the directory \"%s\" cannot be made or opened", path);
}

/* The target is ours until backup_close: nobody else writes to it. */
static int backup_open_target(struct backup *backup, const char *path)
{
    int code = backup_open_directory(backup, path);
    if (code == OMENDB_OK)
        code = backup_examine(backup, path);
    if (code == OMENDB_OK)
        code = storage_open(&backup->to, "LOCK", OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE,
                            &backup->target_lock);
    if (code == OMENDB_OK) {
        const omendb_vfs *vfs = backup->to.vfs;
        code = vfs->lock(vfs->context, backup->target_lock.handle, OMENDB_LOCK_EXCLUSIVE);
        if (code != OMENDB_OK) {
            storage_close(&backup->to, &backup->target_lock); /* the lock is not ours to give up */
            code =
                error_set(code,
                          code == OMENDB_BUSY ? "\"%s\" is open for writing, or another backup is "
                                                "made to it at this moment"
                                              : "LOCK of \"%s\" cannot be locked",
                          path);
        }
    }
    /* Once more with the lock: another process may have been at work in between. */
    return code == OMENDB_OK ? backup_examine(backup, path) : code;
}

/* What the target holds must be an earlier state of what the source holds. */
static int backup_compare(const struct backup *backup, const char *path)
{
    const struct manifest *manifest = &backup->manifest, *former = &backup->former;
    if (former->number > manifest->number || former->commit > manifest->commit)
        return error_set(
            OMENDB_MISMATCH,
            "\"%s\" has commit %llu of MANIFEST-%llu, the database is at commit %llu of "
            "MANIFEST-%llu: it is the older one; give another path",
            path, (unsigned long long)former->commit, (unsigned long long)former->number,
            (unsigned long long)manifest->commit, (unsigned long long)manifest->number);
    for (uint32_t i = 0, j = 0; i < former->file_count && j < manifest->file_count;) {
        const struct manifest_file *a = &former->files[i], *b = &manifest->files[j];
        if (a->number == b->number &&
            (a->kind != b->kind || a->size != b->size || a->footer_crc != b->footer_crc))
            return error_set(OMENDB_MISMATCH,
                             "\"%s\" has another file number %llu than the database: each was "
                             "written to since one was copied from the other; give another path",
                             path, (unsigned long long)a->number);
        i += a->number <= b->number;
        j += b->number <= a->number;
    }
    return OMENDB_OK;
}

static void backup_begin(struct backup *backup)
{
    omendb *db = backup->db;
    backup->to.vfs = db->in_memory ? omendb_default_vfs() : db->storage.vfs;
    backup->to.memory = &db->memory;
    backup->to.io = BLOCKS_IO_CHECK;
    backup->to.sync = OMENDB_SYNC_FULL;
    backup->from.vfs = db->storage.vfs;
    backup->from.directory = db->storage.directory;
    backup->from.memory = &db->memory;
    backup->from.io = BLOCKS_IO_CHECK;
    backup->held_locks[0] = (struct database_held){db->storage.vfs, &backup->lock, NULL};
    backup->held_locks[1] = (struct database_held){backup->to.vfs, &backup->target_lock, NULL};
    database_hold(&backup->held_locks[0]);
    database_hold(&backup->held_locks[1]);
}

static void backup_close(struct backup *backup)
{
    const omendb_vfs *vfs = backup->to.vfs;
    /* As in database_free_files: closing alone would leave the lock to a child. */
    if (backup->target_lock.handle != NULL)
        vfs->lock(vfs->context, backup->target_lock.handle, OMENDB_LOCK_NONE);
    storage_close(&backup->to, &backup->target_lock);
    storage_close(&backup->from, &backup->lock);
    database_let_go(&backup->held_locks[0]);
    database_let_go(&backup->held_locks[1]);
    if (backup->to.directory != NULL)
        vfs->close_directory(vfs->context, backup->to.directory);
    memory_free(&backup->db->memory, backup->buffer, BACKUP_BUFFER_BYTES);
    manifest_destroy(&backup->db->memory, &backup->manifest);
    manifest_destroy(&backup->db->memory, &backup->former);
}

/* ------------------------------------------------------------------ removing */

struct backup_manifests {
    uint64_t in_force;
    size_t count;
    int overflow;
    uint64_t numbers[BACKUP_NAMES];
};

static int backup_note_manifest(void *context, const char *name)
{
    struct backup_manifests *found = context;
    enum storage_kind kind;
    uint64_t number;
    if (!storage_parse_name(name, &kind, &number) || kind != STORAGE_MANIFEST ||
        number == found->in_force)
        return 0;
    found->overflow = found->count == BACKUP_NAMES;
    if (!found->overflow)
        found->numbers[found->count++] = number;
    return found->overflow;
}

/* Unlinks a manifest of the target, unless a reader holds it. */
static int backup_is_held(struct backup *backup, uint64_t number)
{
    struct storage *to = &backup->to;
    struct storage_file file = {0};
    char name[STORAGE_NAME_BYTES];
    storage_name(STORAGE_MANIFEST, number, name);
    int code = storage_open(to, name, OMENDB_OPEN_READ | OMENDB_OPEN_WRITE, &file);
    if (code == OMENDB_OK)
        code = to->vfs->lock(to->vfs->context, file.handle, OMENDB_LOCK_EXCLUSIVE);
    if (code == OMENDB_OK || code == OMENDB_UNSUPPORTED)
        code = storage_unlink(to, name);
    storage_close(to, &file);
    /* Not being able to ask is no answer: a reader may hold it. */
    return code != OMENDB_OK && code != OMENDB_NOTFOUND;
}

/* Manifests beside the one in force go, unless a reader holds them. */
static void backup_release_manifests(struct backup *backup, uint64_t in_force)
{
    struct backup_manifests found = {.in_force = in_force};
    int code = backup->to.vfs->list(backup->to.vfs->context, backup->to.directory,
                                    backup_note_manifest, &found);
    backup->held = code != OMENDB_OK ? UINT64_MAX : 0;
    for (size_t i = 0; i < found.count; i++) {
        if (backup_is_held(backup, found.numbers[i]) && found.numbers[i] > backup->held)
            backup->held = found.numbers[i];
    }
}

static int backup_has_file(const struct manifest *manifest, uint64_t number)
{
    for (uint32_t i = 0; i < manifest->file_count; i++) {
        if (manifest->files[i].number == number)
            return 1;
    }
    return 0;
}

struct backup_doomed {
    const struct backup *backup;
    const struct manifest *in_force;
    size_t count;
    char names[BACKUP_NAMES][STORAGE_NAME_BYTES];
};

static int backup_doom(void *context, const char *name)
{
    struct backup_doomed *doomed = context;
    const struct manifest *in_force = doomed->in_force;
    enum storage_kind kind;
    uint64_t number;
    if (!storage_parse_name(name, &kind, &number) || kind == STORAGE_MANIFEST)
        return 0;
    /* A manifest names only files with smaller numbers than its own. */
    if (number < doomed->backup->held ||
        (kind == STORAGE_WAL ? number == in_force->wal_number : backup_has_file(in_force, number)))
        return 0;
    memcpy(doomed->names[doomed->count++], name, strlen(name) + 1);
    return doomed->count == BACKUP_NAMES;
}

/* Unlinks what neither the target's manifest in force nor a reader of the target needs. What cannot
 * be unlinked now is tried again by the next backup. */
static void backup_collect(struct backup *backup, const struct manifest *in_force)
{
    struct backup_doomed doomed = {.backup = backup, .in_force = in_force};
    size_t unlinked;
    storage_unlink(&backup->to, BACKUP_NEW);
    backup_release_manifests(backup, in_force->number);
    do {
        doomed.count = unlinked = 0;
        backup->to.vfs->list(backup->to.vfs->context, backup->to.directory, backup_doom, &doomed);
        for (size_t i = 0; i < doomed.count; i++)
            unlinked += storage_unlink(&backup->to, doomed.names[i]) == OMENDB_OK;
    } while (unlinked == BACKUP_NAMES);
}

/* ------------------------------------------------------------------ copying */

static void backup_count_problem(void *context, uint64_t block, const char *sentence)
{
    struct backup *backup = context;
    (void)block;
    if (backup->problems++ == 0)
        snprintf(backup->problem, sizeof backup->problem, "%s", sentence);
}

/* Reads a file of the source or the target as a whole. */
static int backup_verify(struct backup *backup, struct storage *storage,
                         const struct manifest_file *file)
{
    struct segment_file *opened = NULL;
    backup->problems = 0;
    int code = segment_file_open(storage, (enum storage_kind)file->kind, file->number, file->size,
                                 file->footer_crc, &opened);
    if (code == OMENDB_OK)
        code = segment_file_check(opened, backup_count_problem, backup);
    segment_file_close(opened);
    return code == OMENDB_OK && backup->problems != 0
               ? error_set(OMENDB_CORRUPT, "backup: %s", backup->problem)
               : code;
}

/* To BACKUP_NEW, synced. A log that named its predecessor would be taken for the end of the
 * target's former one until the manifest is replaced. */
static int backup_copy_bytes(struct backup *backup, const char *name, uint64_t size, int is_log)
{
    struct storage *from = &backup->from, *to = &backup->to;
    struct storage_file source = {0}, target = {0};
    int code = storage_open(from, name, OMENDB_OPEN_READ, &source);
    if (code == OMENDB_OK)
        code = storage_unlink(to, BACKUP_NEW);
    if (code == OMENDB_OK)
        code =
            storage_open(to, BACKUP_NEW,
                         OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE | OMENDB_OPEN_EXCLUSIVE, &target);
    for (uint64_t at = 0; at < size && code == OMENDB_OK; at += BACKUP_BUFFER_BYTES) {
        size_t run =
            size - at < BACKUP_BUFFER_BYTES ? (size_t)(size - at) : (size_t)BACKUP_BUFFER_BYTES;
        code = storage_read(from, &source, at, backup->buffer, run);
        if (is_log && at == 0)
            wal_header_detach(backup->buffer);
        if (code == OMENDB_OK)
            code = storage_write(to, &target, at, backup->buffer, run);
    }
    if (code == OMENDB_OK)
        code = storage_sync(to, &target);
    storage_close(from, &source);
    int closed = storage_close(to, &target);
    return code == OMENDB_OK ? closed : code;
}

static int backup_copy_file(struct backup *backup, const struct manifest_file *file)
{
    char name[STORAGE_NAME_BYTES];
    int code = OMENDB_OK;
    storage_name((enum storage_kind)file->kind, file->number, name);
    /* What takes the place of a file in use, damaged as that is, must be better. */
    if (backup_has_file(&backup->former, file->number))
        code = backup_verify(backup, &backup->from, file);
    if (code == OMENDB_OK)
        code = backup_copy_bytes(backup, name, file->size, 0);
    if (code == OMENDB_OK)
        code = storage_rename(&backup->to, BACKUP_NEW, name);
    if (code == OMENDB_OK)
        code = backup_verify(backup, &backup->to, file);
    backup->copied_bytes += code == OMENDB_OK ? file->size : 0;
    return code;
}

static int backup_copy_files(struct backup *backup)
{
    int code = OMENDB_OK;
    backup->buffer = memory_alloc(&backup->db->memory, BACKUP_BUFFER_BYTES);
    if (backup->buffer == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < backup->manifest.file_count && code == OMENDB_OK; i++) {
        const struct manifest_file *file = &backup->manifest.files[i];
        code = backup_verify(backup, &backup->to, file);
        backup->kept_bytes += code == OMENDB_OK ? file->size : 0;
        /* What is not there, damaged or cannot be read is copied, in its place if need be. */
        if (code != OMENDB_OK && code != OMENDB_NOMEM)
            code = backup_copy_file(backup, file);
    }
    return code;
}

/* Prepared transactions are in the source's log only: at its beginning, as of the manifest's
 * commit. Opening the copy replays them. */
static int backup_copy_log(struct backup *backup)
{
    char name[STORAGE_NAME_BYTES];
    if (backup->log_bytes == 0) {
        backup->manifest.wal_number = 0;
        return OMENDB_OK;
    }
    storage_name(STORAGE_WAL, backup->manifest.wal_number, name);
    int code = backup_copy_bytes(backup, name, backup->log_bytes, 1);
    backup->copied_bytes += code == OMENDB_OK ? backup->log_bytes : 0;
    return code == OMENDB_OK ? storage_rename(&backup->to, BACKUP_NEW, name) : code;
}

/* The target's manifest and CURRENT; *unsure: either manifest may be the one after a crash. */
static int backup_publish(struct backup *backup, const char *path, int *unsure)
{
    int same = 0, code = OMENDB_OK;
    backup->manifest.copy = 1;
    if (backup->former.number == backup->manifest.number)
        code = manifest_compare(&backup->db->memory, &backup->former, &backup->manifest, &same);
    if (code != OMENDB_OK)
        return code;
    if (same) /* files of it that were damaged may have been replaced */
        return storage_sync_directory(&backup->to);
    if (backup->former.number == backup->manifest.number)
        return error_set(OMENDB_MISMATCH,
                         "\"%s\" has another MANIFEST-%llu than the database: each was written to "
                         "since one was copied from the other; give another path",
                         path, (unsigned long long)backup->manifest.number);
    code = manifest_write(&backup->to, &backup->manifest);
    *unsure = code == OMENDB_POISONED;
    if (*unsure)
        code = error_set(
            OMENDB_IOERR,
            "what is on the device of \"%s\" is not known: it is the former backup or the "
            "new one, whole either way; back up once more",
            path);
    return code;
}

/* Says, before anything else is written, that a first backup of this database begins here. */
static int backup_mark_unfinished(struct backup *backup)
{
    struct storage *to = &backup->to;
    struct storage_file file = {0};
    uint8_t header[FORMAT_HEADER_BYTES];
    if (backup->former.number != 0)
        return OMENDB_OK;
    storage_header_begin(header, FORMAT_MAGIC_UNFINISHED);
    format_put64(header + FORMAT_HEADER_OWN, backup->db->database_id);
    storage_header_end(header);
    int code = storage_open(to, FORMAT_UNFINISHED_NAME,
                            OMENDB_OPEN_READ | OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE, &file);
    if (code == OMENDB_OK)
        code = storage_write(to, &file, 0, header, sizeof header);
    if (code == OMENDB_OK)
        code = storage_sync(to, &file);
    int closed = storage_close(to, &file);
    code = code == OMENDB_OK ? closed : code;
    return code == OMENDB_OK ? storage_sync_directory(to) : code;
}

/* Once CURRENT is durable, or the removal of all else. Where that cannot be told it stays, for the
 * next backup. */
static void backup_unmark(struct backup *backup, int published)
{
    struct backup_listing listing = {0};
    struct storage *to = &backup->to;
    if (!published &&
        (to->vfs->list(to->vfs->context, to->directory, backup_note_name, &listing) != OMENDB_OK ||
         listing.has_current || listing.has_numbered || storage_sync_directory(to) != OMENDB_OK))
        return;
    storage_unlink(to, FORMAT_UNFINISHED_NAME);
}

/* All between the decision to write and the end. */
static int backup_write(struct backup *backup, const char *path)
{
    int unsure = 0;
    int code = backup_mark_unfinished(backup);
    backup_release_manifests(backup, backup->former.number);
    if (code == OMENDB_OK)
        code = backup_copy_files(backup);
    if (code == OMENDB_OK)
        code = backup_copy_log(backup);
    if (code == OMENDB_OK)
        code = backup_publish(backup, path, &unsure);
    if (code == OMENDB_OK) {
        backup_collect(backup, &backup->manifest);
        backup_unmark(backup, 1);
    } else if (!unsure) {
        /* Removing sets sentences of its own when it fails, too. */
        char text[ERROR_TEXT_BYTES];
        memcpy(text, error_text(), strlen(error_text()) + 1);
        backup_collect(backup, &backup->former);
        if (backup->former.number == 0)
            backup_unmark(backup, 0);
        error_adopt(code, text);
    }
    return code;
}

/* The sentence of a failed call stays, though looking for files that are not there sets others. */
OMENDB_INTERNAL int backup_run(omendb *db, const char *path)
{
    struct backup backup = {.db = db};
    char before[ERROR_TEXT_BYTES];
    memcpy(before, error_text(), strlen(error_text()) + 1);
    int code = db->in_memory ? backup_check_prepared(db) : backup_check_target(&db->storage, path);
    if (code != OMENDB_OK)
        return code;
    backup_begin(&backup);
    code = backup_open_target(&backup, path);
    if (code == OMENDB_OK)
        code = work_checkpoint(db, 1);
    if (code == OMENDB_OK)
        code = backup_hold(&backup);
    if (code == OMENDB_OK)
        code = backup_compare(&backup, path);
    if (code == OMENDB_OK)
        code = backup_write(&backup, path);
    if (code == OMENDB_OK) {
        atomic_fetch_add(&db->backup_bytes, backup.copied_bytes);
        atomic_fetch_add(&db->backup_kept_bytes, backup.kept_bytes);
    }
    backup_close(&backup);
    return code == OMENDB_OK ? error_adopt(code, before) : code;
}

#undef BACKUP_BUFFER_BYTES
#undef BACKUP_LEVELS
#undef BACKUP_NEW
#undef BACKUP_NAMES
