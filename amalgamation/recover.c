/* recover.c: from files to a running database; and for read-only openers, onwards.
 *
 * The manifest gives the collections and their segments as of commit S; the logs from wal_number on
 * give the commits after S. A log that was read is never appended to: the first write begins a new
 * one and, in the same step, publishes a manifest that no longer needs the old. Where there was
 * anything to replay that happens at once, so that what was shown after a crash stays whatever
 * happens next.
 *
 * Logs form a chain: each names its predecessor and the predecessor's final length, written after
 * the predecessor was synced. A log without predecessor that the manifest does not name is the
 * debris of a recovery that did not finish. */
#include "database.h"
#include "format.h"
#include "sort.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define RECOVER_TRIES 100 /* of a reader, to keep up with a writer */

/* ------------------------------------------------------------------ what lies in the directory */

struct recover_listing {
    struct memory *memory; /* of `logs` */
    int has_current;
    int has_unfinished; /* a first backup */
    int has_foreign;
    int has_segments;
    uint64_t largest;
    uint64_t *logs; /* ascending; each checkpoint that fails leaves one */
    size_t log_count, log_capacity;
    uint64_t manifests[DATABASE_RETAINED];
    size_t manifest_count;
    uint32_t manifest_overflow;
};

static int recover_note_log(struct recover_listing *listing, uint64_t number)
{
    if (listing->log_count == listing->log_capacity) {
        size_t larger = listing->log_capacity * 2 + 16;
        uint64_t *moved =
            memory_resize(listing->memory, listing->logs, listing->log_capacity * sizeof *moved,
                          memory_multiply(larger, sizeof *moved));
        if (moved == NULL)
            return OMENDB_NOMEM;
        listing->logs = moved;
        listing->log_capacity = larger;
    }
    listing->logs[listing->log_count++] = number;
    return OMENDB_OK;
}

static void recover_forget_listing(struct recover_listing *listing)
{
    memory_free(listing->memory, listing->logs, listing->log_capacity * sizeof *listing->logs);
    *listing = (struct recover_listing){.memory = listing->memory};
}

static int recover_note_name(void *context, const char *name)
{
    struct recover_listing *listing = context;
    enum storage_kind kind;
    uint64_t number;
    if (strcmp(name, "CURRENT") == 0) {
        listing->has_current = 1;
    } else if (strcmp(name, FORMAT_UNFINISHED_NAME) == 0) {
        listing->has_unfinished = 1;
    } else if (storage_parse_name(name, &kind, &number)) {
        listing->largest = number > listing->largest ? number : listing->largest;
        listing->has_segments |= kind == STORAGE_SEGMENT || kind == STORAGE_OVERLAY;
        if (kind == STORAGE_WAL)
            return recover_note_log(listing, number);
        if (kind == STORAGE_MANIFEST) {
            if (listing->manifest_count < DATABASE_RETAINED)
                listing->manifests[listing->manifest_count++] = number;
            else
                listing->manifest_overflow = 1;
        }
    } else if (strcmp(name, "LOCK") != 0 && strcmp(name, "CURRENT.tmp") != 0) {
        listing->has_foreign = 1;
    }
    return 0;
}

/* Anew, whatever was listed before. */
static int recover_list(omendb *db, struct recover_listing *listing)
{
    recover_forget_listing(listing);
    int code = db->storage.vfs->list(db->storage.vfs->context, db->storage.directory,
                                     recover_note_name, listing);
    if (code != OMENDB_OK)
        return error_set(code, "the directory of the database cannot be listed");
    if (listing->largest >= MANIFEST_LARGEST_NUMBER)
        return error_set(OMENDB_FORMAT, "a file of the database has a number that none was given");
    sort_array(listing->logs, listing->log_count, sizeof *listing->logs, sort_compare_numbers);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ manifest to collections */

struct recover_files {
    struct shared_file **files; /* parallel to manifest.files */
};

static struct shared_file *recover_find_file(const omendb *db, const struct recover_files *files,
                                             uint64_t number)
{
    for (uint32_t i = 0; i < db->published.file_count; i++) {
        if (db->published.files[i].number == number)
            return files->files[i];
    }
    return NULL;
}

static int recover_overlay(omendb *db, const struct recover_files *files,
                           const struct manifest_segment *entry, struct segment *segment,
                           struct overlay **overlay)
{
    struct shared_file *shared = recover_find_file(db, files, entry->overlay_file);
    if (entry->overlay_file == 0)
        return OMENDB_OK;
    if (shared == NULL || entry->overlay_part >= shared->file->part_count)
        return error_set(
            OMENDB_CORRUPT,
            "MANIFEST-%llu names part %u of ovl-%llu, which is not there; " ERROR_RESTORE,
            (unsigned long long)db->published.number, entry->overlay_part,
            (unsigned long long)entry->overlay_file);
    struct section_range range =
        segment_section(shared->file, entry->overlay_part, SECTION_TOMBSTONES);
    const struct part_info *info = &shared->file->parts[entry->overlay_part];
    assert(range.length % sizeof(uint32_t) == 0); /* segment_file_open has seen to it */
    if (info->target_file != entry->file || info->target_part != entry->part)
        return error_set(OMENDB_CORRUPT,
                         "ovl-%llu: part %u does not belong to seg-%llu; " ERROR_RESTORE,
                         (unsigned long long)entry->overlay_file, entry->overlay_part,
                         (unsigned long long)entry->file);
    int code = range.length == 0 ? OMENDB_OK
                                 : blocks_touch(&shared->file->blocks, range.offset, range.length);
    for (uint64_t at = 0; at < range.length && code == OMENDB_OK; at += sizeof(uint32_t)) {
        uint32_t row;
        memcpy(&row, shared->file->blocks.base + range.offset + at, sizeof row);
        if (row >= segment->info.rows)
            return error_set(OMENDB_CORRUPT, "ovl-%llu: part %u: row %u of %u; " ERROR_RESTORE,
                             (unsigned long long)entry->overlay_file, entry->overlay_part, row,
                             segment->info.rows);
        code = tombstones_prepare(segment->tombstones, row);
        if (code == OMENDB_OK && tombstones_get(segment->tombstones, row) == 0)
            tombstones_set(segment->tombstones, row,
                           db->published.commit == 0 ? 1 : db->published.commit);
    }
    segment->overlay_file = entry->overlay_file;
    segment->overlay_part = entry->overlay_part;
    segment->overlay_commit = db->published.commit;
    return code == OMENDB_OK ? overlay_open(&db->memory, shared, entry->overlay_part,
                                            db->published.commit, segment->info.rows, overlay)
                             : code;
}

static int recover_segments(omendb *db, const struct recover_files *files,
                            const struct manifest_collection *entry, struct collection *collection)
{
    struct version *version = version_create(&db->memory, 0, entry->segment_count);
    uint64_t records = 0;
    int code = version == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (uint32_t i = 0; i < entry->segment_count && code == OMENDB_OK; i++) {
        struct shared_file *shared = recover_find_file(db, files, entry->segments[i].file);
        assert(shared != NULL); /* manifest_read has seen to it */
        code = segment_open(db, collection, shared, entry->segments[i].part, NULL, NULL,
                            &version->segments[i]);
        if (code == OMENDB_OK)
            code = recover_overlay(db, files, &entry->segments[i], version->segments[i],
                                   &version->segment_overlays[i]);
        if (code == OMENDB_OK)
            records += version->segments[i]->info.rows -
                       atomic_load(&version->segments[i]->tombstones->dead);
    }
    if (code != OMENDB_OK) {
        version_release(version);
        return code;
    }
    collection->used_records = records;
    collection->used_documents = entry->document_bytes;
    collection->active = NULL;
    rest_discard(collection);
    version_install(collection, version);
    return OMENDB_OK;
}

/* A refresh finds the same curve again, or a newer one; what it replaces may be in use. */
static int recover_calibration(omendb *db, const struct manifest_collection *entry,
                               struct collection *collection)
{
    struct calibration *old = atomic_load(&collection->calibration);
    if (entry->calibration == NULL ||
        (old != NULL && old->count == entry->calibration->count &&
         old->all_rows == entry->calibration->all_rows &&
         memcmp(old->entries, entry->calibration->entries, sizeof old->entries) == 0))
        return OMENDB_OK;
    struct calibration *made = memory_alloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    *made = *entry->calibration;
    made->older = old;
    atomic_store_explicit(&collection->calibration, made, memory_order_release);
    return OMENDB_OK;
}

/* As of the manifest: the log may go on to others. */
static int recover_limits(struct collection *collection, const omendb_limits *limits)
{
    omendb_limits before;
    quota_get(collection, &before);
    /* A refresh that finds the same leaves the buckets as they are. */
    if (before.records == limits->records && before.bytes == limits->bytes &&
        before.queries_per_second == limits->queries_per_second &&
        before.writes_per_second == limits->writes_per_second)
        return OMENDB_OK;
    int code = manifest_has_limits(limits) ? quota_reserve(collection) : OMENDB_OK;
    if (code == OMENDB_OK)
        quota_set(collection, limits);
    return code;
}

static int recover_declaration(struct collection *collection,
                               const struct manifest_collection *entry)
{
    struct declared *made = NULL;
    int code = entry->declaration_bytes == 0 ? OMENDB_OK
                                             : fields_make(collection->db, entry->declaration,
                                                           entry->declaration_bytes, &made);
    if (code == OMENDB_OK)
        fields_set(collection, made);
    return code;
}

static int recover_collection(omendb *db, const struct recover_files *files,
                              const struct manifest_collection *entry)
{
    struct collection *collection = catalog_by_id(&db->catalog, entry->id);
    int code = OMENDB_OK;
    if (collection == NULL) {
        code = catalog_reserve(db, &db->catalog, 1);
        if (code == OMENDB_OK)
            code = collection_create(db, entry->id, entry->name, &entry->schema, &collection);
        if (code == OMENDB_OK)
            catalog_insert(&db->catalog, collection);
    }
    if (code == OMENDB_OK)
        code = recover_segments(db, files, entry, collection);
    if (code == OMENDB_OK)
        code = recover_calibration(db, entry, collection);
    if (code == OMENDB_OK)
        code = recover_limits(collection, &entry->limits);
    if (code == OMENDB_OK)
        code = recover_declaration(collection, entry);
    if (code == OMENDB_OK)
        atomic_store(&collection->next_id, entry->next_id);
    return code;
}

static void recover_drop(omendb *db, struct collection *collection)
{
    atomic_store(&collection->dropped, 1);
    catalog_remove(&db->catalog, collection);
    collection_release(collection);
}

/* A collection that was created after the manifest's commit: the log has all of it. */
static int recover_empty(omendb *db, struct collection *collection)
{
    struct version *version = version_create(&db->memory, 0, 0);
    if (version == NULL)
        return OMENDB_NOMEM;
    collection->used_records = collection->used_documents = 0;
    quota_set(collection, &(omendb_limits)OMENDB_LIMITS_INIT);
    fields_set(collection, NULL);
    collection->active = NULL;
    rest_discard(collection);
    atomic_store(&collection->next_id, 0);
    version_install(collection, version);
    return OMENDB_OK;
}

/* What a refreshed manifest no longer has, or does not have yet. */
static int recover_drop_missing(omendb *db)
{
    int code = OMENDB_OK;
    uint32_t m = db->published.collection_count;
    for (size_t i = db->catalog.count; i-- > 0 && code == OMENDB_OK;) {
        struct collection *collection = db->catalog.items[i];
        const struct manifest_collection *entries = db->published.collections;
        /* Both are sorted by name. */
        while (m > 0 && strcmp(entries[m - 1].name, collection->name) > 0)
            m--;
        int found = m > 0 && entries[m - 1].id == collection->id;
        if (!found && collection->id < db->published.next_collection)
            recover_drop(db, collection);
        else if (!found)
            code = recover_empty(db, collection);
    }
    return code;
}

/* From db->published to the catalog. */
static int recover_load(omendb *db)
{
    const struct manifest *manifest = &db->published;
    struct recover_files files = {NULL};
    prepared_clear(db); /* the log from the manifest's commit on tells of all of them */
    int code = recover_drop_missing(db);
    if (code != OMENDB_OK)
        return code;
    files.files = memory_zalloc(&db->memory, manifest->file_count * sizeof *files.files);
    if (files.files == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < manifest->file_count && code == OMENDB_OK; i++)
        code = shared_file_open(db, &manifest->files[i], &files.files[i]);
    for (uint32_t i = 0; i < manifest->collection_count && code == OMENDB_OK; i++)
        code = recover_collection(db, &files, &manifest->collections[i]);
    for (uint32_t i = 0; i < manifest->file_count; i++)
        shared_file_release(files.files[i]);
    memory_free(&db->memory, files.files, manifest->file_count * sizeof *files.files);
    (void)manifest_pack(&db->memory, &db->published); /* without memory it stays as it is */
    db->next_collection = manifest->next_collection;
    db->appended_commit = db->durable_commit = manifest->commit;
    atomic_store(&db->visible_commit, manifest->commit);
    atomic_store(&db->checkpoint_commit, manifest->commit);
    atomic_store(&db->log_bytes, 0);
    return code;
}

/* ------------------------------------------------------------------ logs */

struct recover_replay {
    omendb *db;
    uint64_t delivered;
};

static int recover_deliver(void *context, const struct wal_record *record)
{
    struct recover_replay *replay = context;
    if (record->sequence <= replay->db->appended_commit)
        return OMENDB_OK;
    if (record->type != WAL_COMMIT)
        return error_set(
            OMENDB_FORMAT,
            "log: record %llu at offset %llu has type %u; a later version of OmenDB wrote it",
            (unsigned long long)record->sequence, (unsigned long long)record->offset, record->type);
    if (record->sequence != replay->db->appended_commit + 1)
        return error_set(OMENDB_CORRUPT, "log: commit %llu follows on commit %llu; " ERROR_RESTORE,
                         (unsigned long long)record->sequence,
                         (unsigned long long)replay->db->appended_commit);
    replay->delivered++;
    return commit_replay(replay->db, record->sequence, record->payload, record->size);
}

static int recover_stop(void *context, const struct wal_record *record)
{
    (void)context;
    (void)record;
    return OMENDB_DONE;
}

/* Whether anything but zeros follows the place of the header. */
static int recover_has_records(omendb *db, uint64_t number, int *has)
{
    struct storage_file file = {0};
    char name[STORAGE_NAME_BYTES];
    uint64_t size = 0;
    uint8_t buffer[4096];
    storage_name(STORAGE_WAL, number, name);
    *has = 0;
    int code = storage_open(&db->storage, name, OMENDB_OPEN_READ, &file);
    if (code == OMENDB_OK)
        code = storage_size(&db->storage, &file, &size);
    for (uint64_t at = WAL_HEADER_BYTES; at < size && code == OMENDB_OK && !*has;
         at += sizeof buffer) {
        size_t run = size - at < sizeof buffer ? (size_t)(size - at) : sizeof buffer;
        code = storage_read(&db->storage, &file, at, buffer, run);
        for (size_t i = 0; i < run && code == OMENDB_OK && !*has; i++)
            *has = buffer[i] != 0;
    }
    storage_close(&db->storage, &file);
    return code;
}

/* The log that says it follows `number`; 0: none. */
static int recover_successor(omendb *db, const struct recover_listing *listing, uint64_t number,
                             uint64_t *successor, uint64_t *final_length)
{
    *successor = 0;
    *final_length = WAL_LENGTH_UNKNOWN;
    for (size_t i = 0; i < listing->log_count; i++) {
        if (listing->logs[i] <= number)
            continue;
        struct wal_replay peek = {.number = listing->logs[i],
                                  .final_length = WAL_LENGTH_UNKNOWN,
                                  .live_reader = db->read_only != 0};
        int has, code = wal_read(&db->storage, &peek, recover_stop, NULL);
        if (code == OMENDB_NOTFOUND)
            continue; /* never completed, or collected meanwhile */
        if (code == OMENDB_NOMEM || code == OMENDB_IOERR)
            return code;
        if (code != OMENDB_OK && code != OMENDB_DONE) {
            /* A header that never became whole is debris, unless something was logged behind it. */
            int read = recover_has_records(db, listing->logs[i], &has);
            if (read == OMENDB_NOTFOUND || (read == OMENDB_OK && !has))
                continue;
            return read != OMENDB_OK ? read : code;
        }
        if (peek.predecessor == number) {
            *successor = listing->logs[i];
            *final_length = peek.predecessor_length;
            return OMENDB_OK;
        }
    }
    return OMENDB_OK;
}

static void recover_tell_torn(omendb *db, const struct wal_replay *log)
{
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof text,
             "wal-%llu: offset %llu: a record that was never finished, or was damaged since; the "
             "log was cut there",
             (unsigned long long)log->number, (unsigned long long)log->end);
    database_log(db, OMENDB_OK, text);
}

/* Replays from db->replay_* on. */
static int recover_logs(omendb *db, const struct recover_listing *listing, uint64_t *delivered)
{
    struct recover_replay replay = {db, 0};
    int code = OMENDB_OK;
    /* A copy made by backup has no log. */
    while (code == OMENDB_OK && db->replay_wal != 0) {
        uint64_t successor, final_length;
        code = recover_successor(db, listing, db->replay_wal, &successor, &final_length);
        if (code != OMENDB_OK)
            break;
        struct wal_replay log = {.number = db->replay_wal,
                                 .final_length = final_length,
                                 .start_offset = db->replay_offset};
        log.live_reader = db->read_only && successor == 0;
        log.may_sync = log.live_reader;
        code = wal_read(&db->storage, &log, recover_deliver, &replay);
        if (code == OMENDB_NOTFOUND)
            code = error_set(OMENDB_CORRUPT, "wal-%llu is missing; " ERROR_RESTORE,
                             (unsigned long long)db->replay_wal);
        if (code != OMENDB_OK)
            break;
        db->replay_offset = log.end;
        if (log.torn && !db->read_only)
            recover_tell_torn(db, &log);
        if (successor == 0)
            break;
        db->replay_wal = successor;
        db->replay_offset = 0;
    }
    *delivered = replay.delivered;
    return code;
}

/* ------------------------------------------------------------------ readers */

static int recover_too_slow(void)
{
    return error_set(OMENDB_BUSY, "the manifest changes faster than it can be read; try again");
}

/* The manifest that CURRENT names, held by a shared lock so that the writer keeps its files. */
static int recover_read_shared(omendb *db)
{
    const omendb_vfs *vfs = db->storage.vfs;
    uint64_t missing = 0;
    for (int attempt = 0; attempt < RECOVER_TRIES; attempt++) {
        char name[STORAGE_NAME_BYTES];
        uint64_t number, again = 0;
        int code = manifest_current(&db->storage, &number);
        if (code != OMENDB_OK)
            return code;
        storage_name(STORAGE_MANIFEST, number, name);
        code = storage_open(&db->storage, name, OMENDB_OPEN_READ, &db->manifest_lock);
        if (code == OMENDB_NOTFOUND && number == missing)
            return error_set(OMENDB_CORRUPT, "CURRENT names %s, which is missing; " ERROR_RESTORE,
                             name);
        missing = number;
        if (code == OMENDB_NOTFOUND)
            continue; /* collected between the two calls */
        if (code != OMENDB_OK)
            return code;
        code = vfs->lock(vfs->context, db->manifest_lock.handle, OMENDB_LOCK_SHARED);
        if (code != OMENDB_BUSY)
            code = manifest_current(&db->storage, &again);
        if (code == OMENDB_OK && again == number) {
            manifest_destroy(&db->memory, &db->published);
            code = manifest_read_number(&db->storage, number, &db->published);
            if (code != OMENDB_NOTFOUND) /* where nothing can be locked it may go even now */
                return code;
        }
        storage_close(&db->storage, &db->manifest_lock);
    }
    return recover_too_slow();
}

/* Goes over to the manifest that CURRENT names. */
static int recover_change_manifest(omendb *db)
{
    struct storage_file old_lock = db->manifest_lock;
    memset(&db->manifest_lock, 0, sizeof db->manifest_lock);
    int code = recover_read_shared(db);
    if (code == OMENDB_OK)
        storage_close(&db->storage, &db->cursor_lock);
    if (code == OMENDB_OK && atomic_load(&db->open_cursors) != 0) {
        db->cursor_lock = old_lock;
        memset(&old_lock, 0, sizeof old_lock);
    }
    /* Where it failed, what the handle shows now is still held. */
    struct storage_file *idle = code == OMENDB_OK ? &old_lock : &db->manifest_lock;
    storage_close(&db->storage, idle);
    if (code != OMENDB_OK)
        db->manifest_lock = old_lock;
    if (code == OMENDB_OK) {
        atomic_store(&db->half_refreshed, 1);
        code = recover_load(db);
    }
    db->replay_wal = db->published.wal_number;
    db->replay_offset = 0;
    return code;
}

/* On to what the manifest and the logs have now. */
static int recover_advance(omendb *db)
{
    struct recover_listing listing = {.memory = &db->memory};
    uint64_t number, delivered;
    int code = manifest_current(&db->storage, &number);
    const int changes = code == OMENDB_OK && number != db->published.number;
    if (changes)
        code = recover_change_manifest(db);
    /* Listed after the manifest was read: the logs that it names are there by then. */
    if (code == OMENDB_OK)
        code = recover_list(db, &listing);
    if (code == OMENDB_OK)
        code = recover_logs(db, &listing, &delivered);
    recover_forget_listing(&listing);
    if (changes && code == OMENDB_OK) {
        atomic_store(&db->half_refreshed, 0);
        rest_idle(db);
    }
    if (changes && code != OMENDB_OK)
        db->published.number = 0; /* the next refresh loads everything again */
    return code;
}

/* Whether a manifest in force by now begins with a later log than was read: logs behind the one
 * that was read last may have come and gone unseen, as what holds a manifest holds only the first
 * log of its chain. */
static int recover_is_overtaken(omendb *db, int *overtaken, uint64_t *next_file)
{
    struct manifest newer;
    uint64_t number;
    *overtaken = 0;
    int code = manifest_current(&db->storage, &number);
    if (code != OMENDB_OK || number == db->published.number)
        return code;
    code = manifest_read(&db->storage, &newer);
    if (code != OMENDB_OK)
        return code;
    *overtaken = newer.wal_number > db->replay_wal;
    *next_file = newer.next_file;
    manifest_destroy(&db->memory, &newer);
    return OMENDB_OK;
}

/* What was acknowledged before the call is seen. A manifest that was published after it began says
 * which numbers were given by then: one whose first log has a later number holds all of that. */
OMENDB_INTERNAL int recover_refresh(omendb *db)
{
    uint64_t enough = UINT64_MAX, next_file;
    for (int attempt = 0; attempt < RECOVER_TRIES; attempt++) {
        char text[ERROR_TEXT_BYTES];
        int overtaken, code = recover_advance(db);
        if (code != OMENDB_OK && code != OMENDB_CORRUPT)
            return code;
        if (code == OMENDB_OK && db->published.wal_number >= enough)
            return OMENDB_OK;
        snprintf(text, sizeof text, "%s", error_text());
        int asked = recover_is_overtaken(db, &overtaken, &next_file);
        if (asked != OMENDB_OK || !overtaken)
            return code == OMENDB_OK ? asked : error_adopt(code, text);
        enough = next_file < enough ? next_file : enough;
    }
    return recover_too_slow();
}

/* ------------------------------------------------------------------ opening */

static int recover_refuse_foreign(omendb *db, const struct recover_listing *listing, int must_exist)
{
    int has;
    if (listing->has_unfinished)
        return error_set(OMENDB_FORMAT,
                         "a backup was not finished here, and is no database; back up to this path "
                         "once more, or remove it");
    if (listing->has_foreign)
        return error_set(
            OMENDB_FORMAT,
            "the directory holds other things than a database; give a path of its own");
    if (listing->has_segments)
        return error_set(OMENDB_CORRUPT,
                         "CURRENT is missing although there are segments; " ERROR_RESTORE);
    for (size_t i = 0; i < listing->log_count; i++) {
        int code = recover_has_records(db, listing->logs[i], &has);
        if (code == OMENDB_OK && has)
            code = error_set(OMENDB_CORRUPT,
                             "CURRENT is missing although wal-%llu holds commits; " ERROR_RESTORE,
                             (unsigned long long)listing->logs[i]);
        if (code != OMENDB_OK)
            return code;
    }
    if (must_exist || db->read_only)
        return error_set(OMENDB_NOTFOUND, "there is no database at this path");
    return OMENDB_OK;
}

static int recover_take_lock(omendb *db)
{
    const omendb_vfs *vfs = db->storage.vfs;
    int code =
        storage_open(&db->storage, "LOCK", OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE, &db->lock_file);
    if (code != OMENDB_OK)
        return code;
    code = vfs->lock(vfs->context, db->lock_file.handle, OMENDB_LOCK_EXCLUSIVE);
    if (code == OMENDB_BUSY)
        return error_set(
            code,
            "the database is open for writing elsewhere; close it there, or open it read_only");
    return code == OMENDB_OK ? code : error_set(code, "LOCK cannot be locked");
}

/* What was replayed may be in the page cache only; it is about to be shown, so it must stay. Logs
 * before the last were synced when it began. */
static int recover_sync_log(omendb *db)
{
    struct storage_file file = {0};
    char name[STORAGE_NAME_BYTES];
    storage_name(STORAGE_WAL, db->replay_wal, name);
    int code = storage_open(&db->storage, name, OMENDB_OPEN_READ | OMENDB_OPEN_WRITE, &file);
    if (code == OMENDB_OK)
        code = storage_sync(&db->storage, &file);
    storage_close(&db->storage, &file);
    return code;
}

/* A backup that is written to is a database of its own from then on, with an id of its own: what it
 * was a copy of goes another way. */
static void recover_identify(omendb *db)
{
    db->database_id = db->published.copy ? 0 : db->published.database;
    while (db->database_id == 0)
        platform_random(&db->database_id, sizeof db->database_id);
}

static int recover_open_existing(omendb *db, struct recover_listing *listing)
{
    uint64_t delivered = 0;
    int code = manifest_read(&db->storage, &db->published);
    if (code == OMENDB_OK && db->published.read_only_features != 0)
        code = error_set(OMENDB_FORMAT,
                         "a later version of OmenDB wrote it with features %08x; open it read_only",
                         db->published.read_only_features);
    if (code == OMENDB_OK)
        code = recover_load(db);
    if (code != OMENDB_OK)
        return code;
    recover_identify(db);
    db->replay_wal = db->published.wal_number;
    db->replay_offset = 0;
    code = recover_logs(db, listing, &delivered);
    if (code != OMENDB_OK)
        return code;
    uint64_t next = db->published.next_file;
    atomic_store(&db->next_file, listing->largest >= next ? listing->largest + 1 : next);
    size_t kept = 0;
    for (size_t i = 0; i < listing->manifest_count; i++) {
        if (listing->manifests[i] != db->published.number)
            db->retained[kept++] = listing->manifests[i];
    }
    db->retained_overflow = listing->manifest_overflow;
    atomic_store(&db->retained_count, (uint32_t)kept + db->retained_overflow);
    if (delivered == 0)
        return OMENDB_OK;
    code = checkpoint_run(db, 1);
    /* A full disk must not keep anybody from reading; the first write tries again. */
    return code == OMENDB_FULL ? recover_sync_log(db) : code;
}

/* Nothing is shown yet: a reader opens by catching up from nothing. */
static int recover_open_shared(omendb *db)
{
    int code = recover_refresh(db);
    if (code == OMENDB_OK)
        recover_identify(db);
    return code;
}

static int recover_examine(omendb *db, int must_exist, struct recover_listing *listing)
{
    int code = recover_list(db, listing);
    return code == OMENDB_OK && !listing->has_current
               ? recover_refuse_foreign(db, listing, must_exist)
               : code;
}

static int recover_make(omendb *db, uint64_t next_file)
{
    atomic_store(&db->next_file, next_file);
    recover_identify(db);
    db->next_collection = 1;
    return checkpoint_run(db, 1);
}

OMENDB_INTERNAL int recover_open(omendb *db, int must_exist)
{
    struct recover_listing listing = {.memory = &db->memory};
    int code = recover_examine(db, must_exist, &listing);
    if (code == OMENDB_OK && !db->read_only)
        code = recover_take_lock(db);
    /* Once more with the lock: another process may have been at work in between. */
    if (code == OMENDB_OK)
        code = recover_examine(db, must_exist, &listing);
    if (code == OMENDB_OK && listing.has_current)
        code = db->read_only ? recover_open_shared(db) : recover_open_existing(db, &listing);
    else if (code == OMENDB_OK)
        code = recover_make(db, listing.largest + 1);
    recover_forget_listing(&listing);
    return code;
}

#undef RECOVER_TRIES
