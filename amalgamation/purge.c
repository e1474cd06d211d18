/* purge.c: no file of the database holds the bytes of what was deleted before the call.
 *
 * 1. Checkpoint. Ends of rows up to its commit S are durable, the logs before it are superfluous.
 * 2. Mark every file that holds rows that ended at or before S, or parts that no collection has any
 *    more. A transaction that may see such a row is the pin that is told; those that are open at
 *    the beginning are told of before step 1. Rows that were updated are marked and pinned
 * likewise; overlays are written anew, as one has documents that were replaced beside those in
 * force.
 * 3. What lives in marked files is merged into new ones, a segment of each collection at a time;
 *    again from 2, until there is nothing to mark.
 * 4. Every log, segment and overlay that neither the manifest nor a reader needs is overwritten,
 *    synced, and unlinked; then the directory is synced. 3 does so, too, after each merge, so that
 *    there is room for the next.
 *
 * Meanwhile checkpoints unlink nothing (db->purging): a name is needed to overwrite. A superfluous
 * file never becomes needed again, as numbers are not given twice, so it is overwritten without a
 * lock. It may still be read: in this process by a cursor or by a call that began earlier (the
 * list of open files tells), in another one by a reader that holds an older manifest's lock. Both
 * see zeros where bytes were if they are not waited for, so they are the other two pins.
 *
 * A crash leaves the manifest of the last merge in force, which was durable before any file that it
 * does not name was touched; the next opening collects what is left.
 *
 * Rejected: a purge of one collection's handle. A request to erase is about a database as often:
 * one log and the packs are of all collections, and a dropped one has no handle. Overwriting in
 * place of the rows alone: their codes, links and ids lie elsewhere in the file, and readers of
 * other processes verify its blocks. */
#include "database.h"

#include <stdio.h>
#include <string.h>

#define PURGE_NAMES       32      /* overwritten between two looks at the directory */
#define PURGE_ROUNDS      1000000 /* of step 3; each rewrites something */
#define PURGE_PATIENCE_US 1000000 /* for calls of other threads that read what is superfluous */
#define PURGE_POLL_US     1000

struct purge {
    omendb *db;
    uint64_t target; /* id of the collection; 0: all, and those that were dropped */
    uint64_t commit; /* S: what ended later is not waited for */
    char names[PURGE_NAMES][STORAGE_NAME_BYTES]; /* superfluous, and read by nobody */
    size_t count;
    uint32_t in_use;                    /* superfluous files that this process reads, */
    char used_file[STORAGE_NAME_BYTES]; /* such as this */
    int held;                           /* a file is superfluous but for a reader, */
    char held_file[STORAGE_NAME_BYTES]; /* such as this, */
    uint64_t holder;                    /* of this manifest; 0: of one of very many */
};

/* What open transactions may read, as of one moment. */
struct purge_pins {
    uint64_t open, oldest, begun_us;
};

/* ------------------------------------------------------------------ what is marked */

/* Rows that ended at or before the commit that is purged. */
struct purge_rows {
    uint64_t limit, oldest;
    uint64_t ended;
    uint64_t pinned; /* of them those that the oldest transaction may read */
};

static int purge_count_row(void *context, uint32_t row, uint64_t end)
{
    struct purge_rows *rows = context;
    (void)row;
    rows->ended += end <= rows->limit;
    rows->pinned += end <= rows->limit && end > rows->oldest;
    return 0;
}

/* Documents that updates replaced are pinned as rows are. commit_mutex is taken. */
static void purge_count_documents(struct collection *collection, const struct version *version,
                                  struct purge_rows *rows)
{
    platform_mutex_lock(&collection->db->commit_mutex);
    for (uint32_t i = 0; i < version->memtable_count; i++)
        rows->pinned +=
            overlay_count_between(version->memtable_overlays[i], rows->oldest, rows->limit);
    for (uint32_t i = 0; i < version->segment_count; i++)
        rows->pinned +=
            overlay_count_between(version->segment_overlays[i], rows->oldest, rows->limit);
    platform_mutex_unlock(&collection->db->commit_mutex);
}

static void purge_count_rows(struct collection *collection, struct purge_rows *rows)
{
    struct version *version = version_acquire(collection);
    if (rows->oldest < rows->limit)
        purge_count_documents(collection, version, rows);
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        const struct memtable *memtable = version->memtables[i];
        if (atomic_load(&memtable->tombstones->dead) != 0)
            tombstones_each(memtable->tombstones, atomic_load(&memtable->count), purge_count_row,
                            rows);
    }
    for (uint32_t i = 0; i < version->segment_count; i++) {
        const struct segment *segment = version->segments[i];
        if (atomic_load(&segment->tombstones->dead) != 0)
            tombstones_each(segment->tombstones, segment->info.rows, purge_count_row, rows);
    }
    version_release(version);
}

static int purge_is_target(const struct purge *purge, const struct collection *collection)
{
    return purge->target == 0 || collection->id == purge->target;
}

static int purge_refuse_transaction(const struct purge *purge, const struct purge_pins *pins,
                                    const struct collection *first, uint32_t collections,
                                    uint64_t rows)
{
    const omendb_vfs *vfs = purge->db->storage.vfs;
    char others[32] = "";
    uint64_t now = vfs->now_us(vfs->context), begun = pins->begun_us;
    if (collections > 1)
        snprintf(others, sizeof others, " and %u more", collections - 1);
    return error_set(
        OMENDB_BUSY,
        "collection \"%.100s\"%s: %llu deleted rows may be read by the oldest of %llu open "
        "transactions, which began %llu ms ago at commit %llu; end it and purge again",
        first->name, others, (unsigned long long)rows, (unsigned long long)pins->open,
        (unsigned long long)(now > begun ? (now - begun) / 1000 : 0),
        (unsigned long long)pins->oldest);
}

/* OMENDB_BUSY, with the count of all collections, where a transaction may read what is purged. */
static int purge_check_pins(const struct purge *purge, const struct space_list *list)
{
    const struct collection *first = NULL;
    struct purge_pins pins;
    uint32_t collections = 0;
    uint64_t pinned = 0;
    pins.open = txn_count(purge->db, &pins.oldest, &pins.begun_us);
    for (size_t i = 0; i < list->count && pins.open != 0; i++) {
        struct purge_rows rows = {purge->commit, pins.oldest, 0, 0};
        if (!purge_is_target(purge, list->items[i]))
            continue;
        purge_count_rows(list->items[i], &rows);
        if (rows.pinned == 0)
            continue;
        first = first == NULL ? list->items[i] : first;
        collections++;
        pinned += rows.pinned;
    }
    return pinned == 0 ? OMENDB_OK
                       : purge_refuse_transaction(purge, &pins, first, collections, pinned);
}

/* Before anything is written: what is pinned now still is after merging for minutes. */
static int purge_check_first(struct purge *purge)
{
    struct space_list list;
    purge->commit = atomic_load(&purge->db->visible_commit);
    int code = space_list_collections(purge->db, &list);
    if (code == OMENDB_OK)
        code = purge_check_pins(purge, &list);
    space_free_list(purge->db, &list);
    return code;
}

/* Parts of the file that belong to what is purged, in use or not. */
static uint32_t purge_count_parts(const struct purge *purge, const struct segment_file *file)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < file->part_count; i++)
        count += purge->target == 0 || file->parts[i].collection == purge->target;
    return count;
}

/* Whether the segment has documents that were replaced, and a merge writes it without. */
static int purge_is_outdated(const struct purge *purge, const struct segment *segment,
                             const struct overlay *overlay)
{
    const uint64_t limit = compact_drop_limit(purge->db);
    return !overlay_is_empty(overlay) &&
           segment->documents_commit < (limit < purge->commit ? limit : purge->commit);
}

static void purge_mark_segment(const struct purge *purge, const struct collection *collection,
                               struct segment *segment, const struct overlay *overlay)
{
    struct shared_file *file = segment->file;
    struct purge_rows rows = {.limit = purge->commit};
    uint32_t used = purge->target == 0 ? file->used_parts : file->used_parts_of_target;
    if (purge_count_parts(purge, file->file) > used)
        atomic_store(&file->leave, 1);
    if (purge_is_target(purge, collection) && purge_is_outdated(purge, segment, overlay))
        atomic_store(&file->leave, 1);
    if (!purge_is_target(purge, collection) || atomic_load(&segment->tombstones->dead) == 0)
        return;
    tombstones_each(segment->tombstones, segment->info.rows, purge_count_row, &rows);
    if (rows.ended != 0)
        atomic_store(&file->leave, 1);
}

static void purge_mark_collection(const struct purge *purge, struct collection *collection)
{
    struct version *version = version_acquire(collection);
    for (uint32_t i = 0; i < version->segment_count; i++)
        purge_mark_segment(purge, collection, version->segments[i], version->segment_overlays[i]);
    version_release(version);
}

/* Whether a segment of the collection lives in a marked file. */
static int purge_must_leave(struct collection *collection)
{
    int leave = 0;
    struct version *version = version_acquire(collection);
    for (uint32_t i = 0; i < version->segment_count; i++)
        leave |= atomic_load(&version->segments[i]->file->leave) != 0;
    version_release(version);
    return leave;
}

/* Whether the manifest names segments of collections that were dropped after the checkpoint. */
static int purge_has_dropped(const struct purge *purge, const struct space_list *list, int *has)
{
    omendb *db = purge->db;
    struct manifest former = {0};
    size_t c = 0;
    *has = 0;
    int code = manifest_pack(&db->memory, &db->published);
    if (code == OMENDB_OK)
        code = manifest_unpack(&db->memory, &db->published, &former);
    /* Both are sorted by name. */
    for (uint32_t i = 0; i < former.collection_count && !*has; i++) {
        const struct manifest_collection *entry = &former.collections[i];
        while (c < list->count && strcmp(list->items[c]->name, entry->name) < 0)
            c++;
        *has = entry->segment_count != 0 && (c == list->count || list->items[c]->id != entry->id);
    }
    manifest_destroy(&db->memory, &former);
    return code;
}

/* Marks files and puts the collections first in the list of which something lives there. */
static int purge_mark(const struct purge *purge, struct space_list *list, size_t *leaving,
                      int *dropped)
{
    omendb *db = purge->db;
    struct space space;
    int code = space_list_collections(db, list);
    for (size_t i = 0; i < list->count && code == OMENDB_OK; i++)
        code = rest_end(list->items[i]);
    *leaving = 0;
    platform_mutex_lock(&db->maintenance_mutex);
    if (code == OMENDB_OK)
        code = purge_check_pins(purge, list);
    if (code == OMENDB_OK)
        space_measure(db, list, purge->target, &space);
    for (size_t i = 0; i < list->count && code == OMENDB_OK; i++)
        purge_mark_collection(purge, list->items[i]);
    *dropped = 0;
    if (code == OMENDB_OK)
        code = purge_has_dropped(purge, list, dropped);
    platform_mutex_unlock(&db->maintenance_mutex);
    for (size_t i = 0; i < list->count && code == OMENDB_OK; i++) {
        struct collection *collection = list->items[i];
        if (!purge_must_leave(collection))
            continue;
        list->items[i] = list->items[*leaving];
        list->items[(*leaving)++] = collection;
    }
    return code;
}

/* ------------------------------------------------------------------ overwriting */

static int purge_note_name(void *context, const char *name)
{
    struct purge *purge = context;
    enum storage_kind kind;
    uint64_t number, manifest;
    if (!storage_parse_name(name, &kind, &number) || kind == STORAGE_MANIFEST)
        return 0;
    enum collect_need need = collect_file_need(purge->db, kind, number, &manifest);
    if (need == COLLECT_IN_FORCE)
        return 0;
    if (need == COLLECT_SUPERFLUOUS && !shared_file_is_open(purge->db, number)) {
        memcpy(purge->names[purge->count++], name, strlen(name) + 1);
        return purge->count == PURGE_NAMES ? OMENDB_DONE : OMENDB_OK;
    }
    if (need == COLLECT_SUPERFLUOUS) {
        purge->in_use++;
        memcpy(purge->used_file, name, strlen(name) + 1);
    } else if (!purge->held || manifest > purge->holder) {
        purge->held = 1;
        purge->holder = manifest;
        memcpy(purge->held_file, name, strlen(name) + 1);
    }
    return 0;
}

static int purge_list_names(struct purge *purge)
{
    omendb *db = purge->db;
    const omendb_vfs *vfs = db->storage.vfs;
    purge->count = purge->in_use = 0;
    purge->held = 0;
    purge->holder = 0;
    platform_mutex_lock(&db->maintenance_mutex);
    int code = commit_check_writable(db); /* or which manifest is in force is not known */
    if (code == OMENDB_OK) {
        collect_release_manifests(db);
        code = vfs->list(vfs->context, db->storage.directory, purge_note_name, purge);
        if (code == OMENDB_DONE)
            code = OMENDB_OK;
        else if (code != OMENDB_OK)
            error_set(code, "the directory of the database cannot be listed");
    }
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

/* Step 4; leaves in `purge` what could not be overwritten yet. */
static int purge_sweep(struct purge *purge)
{
    struct storage *storage = &purge->db->storage;
    int code = OMENDB_OK, unlinked = 0;
    do {
        code = purge_list_names(purge);
        for (size_t i = 0; i < purge->count && code == OMENDB_OK; i++) {
            code = storage_overwrite(storage, purge->names[i]);
            if (code == OMENDB_OK)
                code = storage_unlink(storage, purge->names[i]);
            unlinked = 1;
        }
    } while (code == OMENDB_OK && purge->count != 0);
    return code == OMENDB_OK && unlinked ? storage_sync_directory(storage) : code;
}

static int purge_refuse_used_file(const struct purge *purge)
{
    char cursors[64] = "";
    uint32_t open = atomic_load(&purge->db->open_cursors);
    if (open != 0)
        snprintf(cursors, sizeof cursors, "cursors, of which %u are open, ", open);
    return error_set(OMENDB_BUSY,
                     "%s may hold deleted rows and is in use by this process: close %shandles of "
                     "collections that were dropped, let calls of other threads end that began "
                     "earlier, and purge again",
                     purge->used_file, cursors);
}

static int purge_refuse_files(const struct purge *purge)
{
    if (purge->in_use != 0)
        return purge_refuse_used_file(purge);
    if (purge->holder == 0)
        return error_set(OMENDB_BUSY,
                         "%s may hold deleted rows and be in use: more than %d manifests may be "
                         "held by readers of other processes; close them and purge again",
                         purge->held_file, DATABASE_RETAINED);
    return error_set(OMENDB_BUSY,
                     "%s may hold deleted rows and be in use: a reader of another process, or a "
                     "backup that is being made, holds MANIFEST-%llu; end it, or have it call "
                     "omendb_refresh, and purge again",
                     purge->held_file, (unsigned long long)purge->holder);
}

/* The last sweep: nothing superfluous may be left. */
static int purge_finish(struct purge *purge)
{
    int code = purge_sweep(purge);
    for (uint64_t waited = 0;
         code == OMENDB_OK && purge->in_use != 0 && atomic_load(&purge->db->open_cursors) == 0 &&
         waited < PURGE_PATIENCE_US;
         waited += PURGE_POLL_US) {
        platform_sleep_us(PURGE_POLL_US);
        code = purge_sweep(purge);
    }
    return code == OMENDB_OK && (purge->in_use != 0 || purge->held) ? purge_refuse_files(purge)
                                                                    : code;
}

/* ------------------------------------------------------------------ the whole */

/* One round of steps 2 and 3. *done = 1: nothing is marked. */
static int purge_round(struct purge *purge, int *done)
{
    omendb *db = purge->db;
    struct space_list list;
    size_t leaving;
    int merged, dropped, code = purge_mark(purge, &list, &leaving, &dropped);
    *done = code == OMENDB_OK && leaving == 0 && !dropped;
    for (size_t first = 0; first < leaving && code == OMENDB_OK; first += COMPACT_BATCH) {
        size_t count = leaving - first < COMPACT_BATCH ? leaving - first : COMPACT_BATCH;
        code = compact_run(db, list.items + first, count, COMPACT_LEAVING, NULL, NULL, &merged);
        if (code == OMENDB_OK)
            code = purge_sweep(purge);
    }
    space_free_list(db, &list);
    if (code == OMENDB_OK && leaving == 0 && dropped)
        code = work_checkpoint(db, 1);
    return code;
}

/* A manifest whose overlays have only the documents in force (checkpoint.c looks at `purging`). */
static int purge_renew_overlays(omendb *db)
{
    int some = 0, code = OMENDB_OK;
    platform_mutex_lock(&db->maintenance_mutex);
    for (uint32_t i = 0; i < db->published.file_count; i++)
        some |= db->published.files[i].kind == STORAGE_OVERLAY;
    memory_begin_maintenance();
    if (some)
        code = checkpoint_republish(db);
    memory_end_maintenance();
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

static int purge_run_alone(struct purge *purge)
{
    omendb *db = purge->db;
    int done = 0, code = purge_check_first(purge);
    if (code == OMENDB_OK)
        code = work_checkpoint(db, 1);
    purge->commit = atomic_load(&db->checkpoint_commit);
    if (code == OMENDB_OK)
        code = purge_renew_overlays(db);
    for (int round = 0; round < PURGE_ROUNDS && !done && code == OMENDB_OK; round++)
        code = purge_round(purge, &done);
    if (code == OMENDB_OK && !done)
        return error_set(OMENDB_BUSY, "collections are dropped faster than what is left of them "
                                      "can be overwritten; purge again");
    return code == OMENDB_OK ? purge_finish(purge) : code;
}

static void purge_begin(omendb *db)
{
    platform_mutex_lock(&db->maintenance_mutex);
    db->purging = 1;
    platform_mutex_unlock(&db->maintenance_mutex);
}

/* What it had to leave is overwritten when it is collected. */
static void purge_end(omendb *db, int code)
{
    platform_mutex_lock(&db->maintenance_mutex);
    db->purging = 0;
    db->overwrite_below = code == OMENDB_OK ? 0 : atomic_load(&db->next_file);
    platform_mutex_unlock(&db->maintenance_mutex);
}

OMENDB_INTERNAL int purge_run(omendb *db, const char *name)
{
    struct purge purge = {.db = db};
    int found = 1, code = commit_check_writable(db);
    if (code != OMENDB_OK)
        return code;
    platform_mutex_lock(&db->commit_mutex);
    if (name != NULL) {
        size_t at = catalog_find(&db->catalog, name, &found);
        purge.target = found ? db->catalog.items[at]->id : 0;
    }
    platform_mutex_unlock(&db->commit_mutex);
    if (!found)
        return error_set(OMENDB_NOTFOUND,
                         "there is no collection \"%s\"; what is left of dropped ones is purged "
                         "with all, by giving no name",
                         name);
    code = work_merge_begin(db, NULL, NULL);
    if (code != OMENDB_OK)
        return code;
    purge_begin(db);
    code = checkpoint_poison_if_unsure(db, purge_run_alone(&purge));
    purge_end(db, code);
    work_merge_end(db);
    return code;
}

#undef PURGE_NAMES
#undef PURGE_ROUNDS
#undef PURGE_PATIENCE_US
#undef PURGE_POLL_US
