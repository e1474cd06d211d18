/* backup.c: a consistent copy while readers and writers go on.
 *
 * After a checkpoint the manifest is the database at its commit S. It is held by a shared lock, as
 * a reader of another process holds it, so that merges and checkpoints leave its files; then files
 * are copied, each copy is verified block by block, and last a manifest of the copy's own is
 * published. The copy has no log.
 *
 * Memory: one buffer, and the footer of the file whose copy is verified, some 8 bytes a block.
 *
 * A target inside of the database is refused, as the next opening would find a stranger's directory
 * in it. Paths are not compared, which links and ".." lead astray: the directories above the target
 * are opened one after the other, and asked whether they are the database's. */
#include "database.h"

#include <string.h>

#define BACKUP_BUFFER_BYTES (UINT64_C(1) << 20)
#define BACKUP_LEVELS       64 /* directories above the target that are looked at */

struct backup {
    omendb *db;
    struct storage to;
    struct storage_file lock; /* on the source's manifest */
    struct manifest manifest;
    uint8_t *buffer;
    uint64_t problems;
    uint32_t copied; /* files of the manifest that were begun */
};

/* Takes the manifest as it is and keeps its files from being collected. */
static int backup_hold(struct backup *backup)
{
    omendb *db = backup->db;
    const omendb_vfs *vfs = db->storage.vfs;
    char name[STORAGE_NAME_BYTES];
    platform_mutex_lock(&db->maintenance_mutex);
    int code = manifest_read(&db->storage, &backup->manifest);
    storage_name(STORAGE_MANIFEST, backup->manifest.number, name);
    if (code == OMENDB_OK)
        code = storage_open(&db->storage, name, OMENDB_OPEN_READ, &backup->lock);
    if (code == OMENDB_OK)
        code = vfs->lock(vfs->context, backup->lock.handle, OMENDB_LOCK_SHARED);
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

static int backup_any_entry(void *context, const char *name)
{
    (void)name;
    *(int *)context = 1;
    return 1;
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
static int backup_is_inside(const omendb *db, char *path)
{
    const omendb_vfs *vfs = db->storage.vfs;
    char own[sizeof db->identity], at[sizeof own], below[sizeof own];
    if (db->in_memory ||
        vfs->identity(vfs->context, db->storage.directory, own, sizeof own) != OMENDB_OK)
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

static int backup_check_target(omendb *db, const char *path)
{
    struct memory *memory = &db->memory;
    size_t length = strlen(path), capacity = memory_add(length, 3 * (BACKUP_LEVELS + 1) + 2);
    char *above = memory_alloc(memory, capacity);
    if (above == NULL)
        return OMENDB_NOMEM;
    memcpy(above, path, length + 1);
    int inside = backup_is_inside(db, above);
    memory_free(memory, above, capacity);
    return inside ? error_set(OMENDB_INVALID,
                              "\"%s\" is inside of the database; give a path outside of it", path)
                  : OMENDB_OK;
}

static int backup_open_target(struct backup *backup, const char *path)
{
    const omendb_vfs *vfs = backup->db->in_memory ? omendb_default_vfs() : backup->db->storage.vfs;
    int used = 0;
    backup->to.vfs = vfs;
    backup->to.memory = &backup->db->memory;
    backup->to.io = BLOCKS_IO_CHECK;
    backup->to.sync = OMENDB_SYNC_FULL;
    int code = vfs->open_directory(vfs->context, path, 1, &backup->to.directory);
    if (code != OMENDB_OK) {
        backup->to.directory = NULL;
        if (code == OMENDB_FORMAT)
            return error_set(code, "\"%s\" is not a directory; a backup is one", path);
        if (code == OMENDB_NOTFOUND)
            return error_set(
                code, "\"%s\" cannot be created: its parent directory is not there, or takes none",
                path);
        return error_set(code, "the directory \"%s\" cannot be made or opened", path);
    }
    code = vfs->list(vfs->context, backup->to.directory, backup_any_entry, &used);
    if (!used && code == OMENDB_OK)
        return OMENDB_OK;
    vfs->close_directory(vfs->context, backup->to.directory);
    backup->to.directory = NULL;
    if (!used)
        return error_set(code, "the directory \"%s\" cannot be listed", path);
    return error_set(OMENDB_EXISTS, "\"%s\" is not empty; give a new path", path);
}

static void backup_count_problem(void *context, const char *sentence)
{
    struct backup *backup = context;
    if (backup->problems++ == 0)
        error_set(OMENDB_CORRUPT, "backup: %s", sentence);
}

static int backup_verify(struct backup *backup, const struct manifest_file *file)
{
    struct segment_file *copy = NULL;
    int code = segment_file_open(&backup->to, (enum storage_kind)file->kind, file->number,
                                 file->size, file->footer_crc, &copy);
    if (code == OMENDB_OK)
        code = segment_file_check(copy, backup_count_problem, backup);
    segment_file_close(copy);
    return code == OMENDB_OK && backup->problems != 0 ? OMENDB_CORRUPT : code;
}

static int backup_copy_file(struct backup *backup, const struct manifest_file *file)
{
    struct storage *from = &backup->db->storage;
    struct storage_file source = {0}, target = {0};
    char name[STORAGE_NAME_BYTES];
    storage_name((enum storage_kind)file->kind, file->number, name);
    int code = storage_open(from, name, OMENDB_OPEN_READ, &source);
    if (code == OMENDB_OK)
        code =
            storage_open(&backup->to, name,
                         OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE | OMENDB_OPEN_EXCLUSIVE, &target);
    for (uint64_t at = 0; at < file->size && code == OMENDB_OK; at += BACKUP_BUFFER_BYTES) {
        size_t run = file->size - at < BACKUP_BUFFER_BYTES ? (size_t)(file->size - at)
                                                           : (size_t)BACKUP_BUFFER_BYTES;
        code = storage_read(from, &source, at, backup->buffer, run);
        if (code == OMENDB_OK)
            code = storage_write(&backup->to, &target, at, backup->buffer, run);
    }
    if (code == OMENDB_OK)
        code = storage_sync(&backup->to, &target);
    storage_close(from, &source);
    int closed = storage_close(&backup->to, &target);
    code = code == OMENDB_OK ? closed : code;
    return code == OMENDB_OK ? backup_verify(backup, file) : code;
}

static int backup_copy(struct backup *backup)
{
    int code = OMENDB_OK;
    backup->buffer = memory_alloc(&backup->db->memory, BACKUP_BUFFER_BYTES);
    if (backup->buffer == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < backup->manifest.file_count && code == OMENDB_OK; i++) {
        code = backup_copy_file(backup, &backup->manifest.files[i]);
        if (code != OMENDB_EXISTS) /* then it is not ours to remove */
            backup->copied = i + 1;
    }
    backup->manifest.wal_number = 0;
    if (code == OMENDB_OK)
        code = manifest_write(&backup->to, &backup->manifest);
    memory_free(&backup->db->memory, backup->buffer, BACKUP_BUFFER_BYTES);
    return code;
}

static void backup_remove(struct backup *backup)
{
    char name[STORAGE_NAME_BYTES];
    storage_unlink(&backup->to, "CURRENT");
    storage_unlink(&backup->to, "CURRENT.tmp");
    storage_name(STORAGE_MANIFEST, backup->manifest.number, name);
    storage_unlink(&backup->to, name);
    for (uint32_t i = 0; i < backup->copied; i++) {
        storage_name((enum storage_kind)backup->manifest.files[i].kind,
                     backup->manifest.files[i].number, name);
        storage_unlink(&backup->to, name);
    }
}

OMENDB_INTERNAL int backup_run(omendb *db, const char *path)
{
    struct backup backup = {.db = db};
    int code = backup_check_target(db, path);
    if (code == OMENDB_OK)
        code = work_checkpoint(db, 1);
    if (code == OMENDB_OK)
        code = backup_open_target(&backup, path);
    if (code == OMENDB_OK)
        code = backup_hold(&backup);
    if (code == OMENDB_OK) {
        code = backup_copy(&backup);
        if (code != OMENDB_OK) {
            /* Removing sets sentences of its own when it fails, too. */
            char text[ERROR_TEXT_BYTES];
            memcpy(text, error_text(), strlen(error_text()) + 1);
            backup_remove(&backup);
            error_adopt(code, text);
        }
    }
    storage_close(&db->storage, &backup.lock);
    if (backup.to.directory != NULL)
        backup.to.vfs->close_directory(backup.to.vfs->context, backup.to.directory);
    manifest_destroy(&db->memory, &backup.manifest);
    return code;
}

#undef BACKUP_BUFFER_BYTES
#undef BACKUP_LEVELS
