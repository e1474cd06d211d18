/* commit.c: one path for every change: validate, reserve, log, apply; then sync in groups and
 * publish.
 *
 * Under commit_mutex a commit is validated against everything that was appended, published or not,
 * all memory that applying needs is reserved, the record is appended, and the change is applied
 * with its commit number, which makes it visible to nobody yet. Outside, one waiting thread at a
 * time becomes the leader, syncs the log for all, and publishes the newest commit that the sync
 * covers. Since commits are numbered in the order of the log, publishing one number publishes all
 * before it.
 *
 * Payload of a record: for each change
 *   u32 kind, u32 count, u64 collection id, then
 *   ADD, PUT: count u64 ids, count vectors in the stored type, zeros to a multiple of 8
 *   ADD_DOCUMENTS, PUT_DOCUMENTS: the same, then u64 bytes of all documents, count u32 bytes of
 *             each, 0 where a record has none, zeros to a multiple of 8, the documents (document.h)
 *   UPDATE:   count u64 ids, then the documents as above: those that the records have from now on
 *   DELETE:   count u64 ids
 *   CREATE:   u32 dim, metric, scalar; f32 scale; u32 M, ef_construction, ef, name bytes;
 *             u64 seed; name, zeros to a multiple of 8
 *   DROP:     nothing
 *   DECLARE:  a declaration (declaration.h) of as many bytes as count says
 *   LIMITS:   u64 records, bytes, queries and writes a second; count is 32, their bytes
 * Of a prepared transaction (prepared.c) count is the bytes of its name, which follows, with zeros
 * to a multiple of 8; in place of the collection's id stands
 *   PREPARE:  u64 bytes of its changes, ADD, PUT, DELETE and UPDATE as above, which follow the name
 *   SETTLE, REMEMBER: u64 outcome: 2 committed, 3 rolled back, 4 forgotten */
#include "database.h"
#include "declaration.h"
#include "format.h"

#include <stdio.h>
#include <string.h>

#define COMMIT_HEAD_BYTES   16
#define COMMIT_CREATE_BYTES 40
#define COMMIT_PIECES       8
#define COMMIT_AHEAD        4 /* rows */

OMENDB_INTERNAL int commit_check_writable(omendb *db)
{
    if (db->read_only)
        return error_set(OMENDB_READONLY, "the database was opened read-only");
    if (atomic_load(&db->poisoned))
        return error_set(OMENDB_POISONED,
                         "nothing is written since an earlier failure (%s); close and reopen the "
                         "database",
                         db->poison_text);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ durability */

OMENDB_INTERNAL int commit_poison(omendb *db, int code)
{
    platform_mutex_lock(&db->sync_mutex);
    if (!atomic_load(&db->poisoned)) {
        const char *text = error_text();
        size_t length = strlen(text);
        length = length < sizeof db->poison_text ? length : sizeof db->poison_text - 1;
        memcpy(db->poison_text, text, length);
        db->poison_text[length] = 0;
        atomic_store(&db->poisoned, 1);
    }
    platform_condition_broadcast(&db->sync_condition);
    platform_mutex_unlock(&db->sync_mutex);
    return code;
}

OMENDB_INTERNAL void commit_publish(omendb *db, uint64_t commit)
{
    OMENDB_YIELD("commit_publish");
    uint64_t visible = atomic_load(&db->visible_commit);
    while (visible < commit && !atomic_compare_exchange_weak(&db->visible_commit, &visible, commit))
        ;
}

OMENDB_INTERNAL void commit_lead(omendb *db)
{
    platform_mutex_lock(&db->sync_mutex);
    while (db->syncing)
        platform_condition_wait(&db->sync_condition, &db->sync_mutex);
    db->syncing = 1;
    platform_mutex_unlock(&db->sync_mutex);
}

OMENDB_INTERNAL void commit_unlead(omendb *db)
{
    platform_mutex_lock(&db->sync_mutex);
    db->syncing = 0;
    platform_condition_broadcast(&db->sync_condition);
    platform_mutex_unlock(&db->sync_mutex);
}

OMENDB_INTERNAL int commit_sync_led(omendb *db)
{
    if (atomic_load(&db->poisoned))
        return commit_check_writable(db);
    platform_mutex_lock(&db->commit_mutex);
    uint64_t commit = db->appended_commit;
    uint64_t length = db->wal == NULL ? 0 : db->wal->length;
    platform_mutex_unlock(&db->commit_mutex);
    if (db->wal != NULL && db->durable_commit < commit) {
        /* Only the leader replaces the log, so it stays while it is synced. */
        int code = wal_sync(db->wal);
        if (code != OMENDB_OK)
            return commit_poison(db, code);
        wal_set_durable(db->wal, length);
        atomic_fetch_add_explicit(&db->commit_groups, 1, memory_order_relaxed);
    }
    /* Visible first: whoever finds its commit durable returns, and must then see it. */
    commit_publish(db, commit);
    platform_mutex_lock(&db->sync_mutex);
    db->durable_commit = commit;
    platform_mutex_unlock(&db->sync_mutex);
    return OMENDB_OK;
}

OMENDB_INTERNAL int commit_wait(omendb *db, uint64_t commit)
{
    int code = OMENDB_OK;
    platform_mutex_lock(&db->sync_mutex);
    while (db->durable_commit < commit && !atomic_load(&db->poisoned)) {
        if (db->syncing) {
            platform_condition_wait(&db->sync_condition, &db->sync_mutex);
            continue;
        }
        db->syncing = 1;
        platform_mutex_unlock(&db->sync_mutex);
        code = commit_sync_led(db);
        platform_mutex_lock(&db->sync_mutex);
        db->syncing = 0;
        platform_condition_broadcast(&db->sync_condition);
    }
    int durable = db->durable_commit >= commit;
    platform_mutex_unlock(&db->sync_mutex);
    if (durable)
        return OMENDB_OK;
    return code != OMENDB_OK
               ? code
               : error_set(OMENDB_IOERR,
                           "whether this commit is on the device is not known: %s; close and "
                           "reopen the database",
                           db->poison_text);
}

/* ------------------------------------------------------------------ validating */

/* What one commit needs between validating and applying. */
struct commit_plan {
    struct location
        *victims; /* rows that end, in the order of changes and ids; both pointers NULL: none */
    size_t victim_count;
    size_t victim_capacity;
    struct location *updated; /* rows that get other documents, likewise; none is missing */
    size_t updated_count, updated_capacity;
    uint64_t snapshot;
    int replay;
    const struct prepared *prepared; /* whose own locks do not stand in its way, or NULL */
    size_t created;                  /* collections, so far */
};

static int commit_plan_reserve(omendb *db, struct commit_plan *plan, const struct change *changes,
                               size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (changes[i].kind == CHANGE_PUT || changes[i].kind == CHANGE_DELETE ||
            (plan->replay && changes[i].kind == CHANGE_ADD))
            plan->victim_capacity += changes[i].count;
        if (changes[i].kind == CHANGE_UPDATE)
            plan->updated_capacity += changes[i].count;
    }
    if (plan->victim_capacity != 0)
        plan->victims = memory_array(&db->memory, plan->victim_capacity, sizeof *plan->victims);
    if (plan->updated_capacity != 0)
        plan->updated = memory_array(&db->memory, plan->updated_capacity, sizeof *plan->updated);
    return (plan->victim_capacity != 0 && plan->victims == NULL) ||
                   (plan->updated_capacity != 0 && plan->updated == NULL)
               ? OMENDB_NOMEM
               : OMENDB_OK;
}

OMENDB_INTERNAL int commit_refuse_automatic_ids(const struct collection *collection, uint64_t next)
{
    return error_set(OMENDB_FULL,
                     "collection \"%s\" has had id %llu, and automatic ids go on from the largest: "
                     "none are left; give ids yourself",
                     collection->name, (unsigned long long)(next - 1));
}

#define COMMIT_PLACE_BYTES 32

/* Of an add the rows are those that the caller gave; of equal ids that are put only one is left. */
static void commit_name_row(const struct change *change, uint32_t index,
                            char place[COMMIT_PLACE_BYTES])
{
    *place = '\0';
    if (change->kind == CHANGE_ADD && change->count > 1)
        snprintf(place, COMMIT_PLACE_BYTES, "row %u: ", index);
}

OMENDB_INTERNAL int commit_refuse_taken_id(const struct change *change, uint32_t index)
{
    char place[COMMIT_PLACE_BYTES];
    commit_name_row(change, index, place);
    return error_set(OMENDB_EXISTS,
                     "%sid %llu is already in collection \"%s\"; use put to replace it", place,
                     (unsigned long long)change->ids[index], change->collection->name);
}

OMENDB_INTERNAL const uint8_t *change_next_document(const struct change *change, uint32_t index,
                                                    const uint8_t **at)
{
    const uint8_t *document = *at;
    if (change->document_sizes == NULL || change->document_sizes[index] == 0)
        return NULL;
    *at += change->document_sizes[index];
    return document;
}

OMENDB_INTERNAL int commit_refuse_taken_key(const struct change *change, uint32_t index,
                                            const uint8_t *key, uint32_t size, uint64_t holder)
{
    char place[COMMIT_PLACE_BYTES];
    commit_name_row(change, index, place);
    return error_set(change->kind == CHANGE_ADD ? OMENDB_EXISTS : OMENDB_CONFLICT,
                     "%skey \"%.*s\" is that of record %llu in collection \"%s\"", place, (int)size,
                     (const char *)key, (unsigned long long)holder, change->collection->name);
}

#undef COMMIT_PLACE_BYTES

/* The live record with the key. *id: OMENDB_ID_AUTO: there is none. */
static int commit_find_key(const struct version *version, const uint8_t *key, uint32_t size,
                           uint64_t *id, uint64_t *changed)
{
    struct location live;
    int code = version_locate_live_key(version, key, size, &live, changed);
    *id = OMENDB_ID_AUTO;
    if (code == OMENDB_OK && (live.memtable != NULL || live.segment != NULL))
        code = location_id(&live, id);
    return code;
}

/* A put by key alone is one of the record that has the key. */
static int commit_assign_ids(struct change *change, const struct version *version)
{
    struct collection *collection = change->collection;
    uint64_t next = atomic_load_explicit(&collection->next_id, memory_order_relaxed), changed;
    const uint8_t *at = change->documents;
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < change->count && code == OMENDB_OK; i++) {
        uint32_t size;
        const uint8_t *key = document_key(change_next_document(change, i, &at), &size);
        change->ids[i] = OMENDB_ID_AUTO;
        if (key != NULL && change->kind == CHANGE_PUT)
            code = commit_find_key(version, key, size, &change->ids[i], &changed);
        if (code != OMENDB_OK || change->ids[i] != OMENDB_ID_AUTO)
            continue;
        if (next >= UINT64_MAX - 1)
            return commit_refuse_automatic_ids(collection, next);
        change->ids[i] = next++;
    }
    return code;
}

/* Whether the document has the key that the row has, which no update changes: found by it is the
 * row's own document. Only a log that lies says otherwise. */
static int commit_check_kept_key(const struct commit_plan *plan, const struct change *change,
                                 const struct location *live, uint64_t id, const uint8_t *document)
{
    const uint8_t *old;
    uint32_t size, old_size;
    int code = location_document(live, UINT64_MAX, &old);
    if (code == OMENDB_CORRUPT && plan->replay)
        return OMENDB_OK; /* damage of one record does not keep the database closed */
    const uint8_t *key = document_key(document, &size), *old_key = document_key(old, &old_size);
    if (code != OMENDB_OK || (size == old_size && (size == 0 || memcmp(key, old_key, size) == 0)))
        return code;
    return error_set(OMENDB_CORRUPT,
                     "record %llu of collection \"%s\" is updated with the key of another "
                     "one; " ERROR_RESTORE,
                     (unsigned long long)id, change->collection->name);
}

/* The newest commit that changed the row's document in place; raises *changed to it. */
static int commit_note_update(const struct location *live, uint64_t *changed)
{
    struct overlay_version newest;
    int code = overlay_find(live->overlay, live->row, UINT64_MAX, &newest);
    *changed = newest.commit > *changed ? newest.commit : *changed;
    return code;
}

/* Finds what one id of the change does to existing rows. document: that it brings. `keep` = 0: the
 * id is left out of the commit. */
static int commit_check_id(struct commit_plan *plan, struct change *change,
                           const struct version *version, uint32_t index, const uint8_t *document,
                           int *keep)
{
    struct collection *collection = change->collection;
    struct location live = {NULL, NULL, NULL, 0};
    uint64_t id = change->ids[index], changed = 0;
    uint32_t bytes;
    const struct prepared *holder = prepared_holder(collection->db, collection->id, id);
    *keep = 1;
    if (holder != NULL && holder != plan->prepared && !plan->replay)
        return prepared_refuse_locked(change, id, holder);
    /* No id at or above next_id was ever used. */
    if (id < atomic_load_explicit(&collection->next_id, memory_order_relaxed)) {
        int code = version_locate_live(version, id, &live, &changed);
        if (code == OMENDB_OK && plan->snapshot != UINT64_MAX)
            code = commit_note_update(&live, &changed);
        if (code != OMENDB_OK)
            return code;
    }
    if (changed > plan->snapshot)
        return error_set(
            OMENDB_CONFLICT,
            "record %llu of collection \"%s\" was changed by another commit; begin again",
            (unsigned long long)id, collection->name);
    int exists = live.memtable != NULL || live.segment != NULL;
    if (change->kind == CHANGE_ADD && !plan->replay) {
        if (exists)
            return commit_refuse_taken_id(change, index);
        return OMENDB_OK;
    }
    if ((change->kind == CHANGE_DELETE || change->kind == CHANGE_UPDATE) && !exists) {
        if (!change->skip_missing)
            return error_set_missing(collection->name, id);
        *keep = 0;
        return OMENDB_OK;
    }
    if (exists) {
        int code = location_document_bytes(&live, UINT64_MAX, &bytes);
        if (code != OMENDB_OK)
            return code;
        change->ended_documents += bytes;
    }
    if (change->kind == CHANGE_UPDATE) {
        plan->updated[plan->updated_count++] = live;
        return commit_check_kept_key(plan, change, &live, id, document);
    }
    plan->victims[plan->victim_count++] = live;
    change->ended_records += (uint64_t)exists;
    return OMENDB_OK;
}

/* No other record has the key. Of a transaction that was seen at its snapshot, where what it
 * changed itself counts too, so what is asked here is whether that still holds. */
static int commit_check_key(const struct commit_plan *plan, const struct change *change,
                            const struct version *version, uint32_t index, const uint8_t *document)
{
    const struct collection *collection = change->collection;
    uint32_t size;
    uint64_t id, changed;
    const uint8_t *key = document_key(document, &size);
    if (key == NULL || plan->replay || change->kind == CHANGE_UPDATE)
        return OMENDB_OK;
    const struct prepared *holder = prepared_key_holder(collection->db, collection->id, key, size);
    if (holder != NULL && holder != plan->prepared)
        return prepared_refuse_locked_key(change, key, size, holder);
    int code = commit_find_key(version, key, size, &id, &changed);
    if (code != OMENDB_OK)
        return code;
    if (changed > plan->snapshot)
        return error_set(OMENDB_CONFLICT,
                         "key \"%.*s\" of collection \"%s\" was given or taken by another "
                         "commit; begin again",
                         (int)size, (const char *)key, collection->name);
    if (plan->snapshot == UINT64_MAX && plan->prepared == NULL && id != OMENDB_ID_AUTO &&
        id != change->ids[index])
        return commit_refuse_taken_key(change, index, key, size, id);
    return OMENDB_OK;
}

static int commit_validate_records(struct commit_plan *plan, struct change *change)
{
    const struct version *version =
        atomic_load_explicit(&change->collection->version, memory_order_relaxed);
    const uint8_t *at = change->documents;
    int code = change->automatic ? commit_assign_ids(change, version) : OMENDB_OK;
    uint32_t kept = 0, count = change->count;
    change->ended_records = change->ended_documents = 0;
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++) {
        int keep;
        const uint8_t *document = change_next_document(change, i, &at);
        code = commit_check_key(plan, change, version, i, document);
        if (code == OMENDB_OK)
            code = commit_check_id(plan, change, version, i, document, &keep);
        /* An update that is left out, in a log that lies, would part ids and documents. */
        if (code == OMENDB_OK && !keep && change->kind == CHANGE_UPDATE) {
            plan->updated[plan->updated_count++] = (struct location){NULL, NULL, NULL, 0};
            change->ended_documents += document == NULL ? 0 : document_size(document);
        }
        if (code == OMENDB_OK && (keep || change->kind == CHANGE_UPDATE))
            change->ids[kept++] = change->ids[i];
    }
    if (code == OMENDB_OK)
        change->count = kept;
    change->affected = kept;
    return code;
}

static int commit_validate(omendb *db, struct commit_plan *plan, struct change *change)
{
    int found;
    if (change->kind == CHANGE_CREATE) {
        catalog_find(&db->catalog, change->collection->name, &found);
        if (found)
            return error_set(OMENDB_EXISTS, "collection \"%s\" exists", change->collection->name);
        change->collection->id = db->next_collection + plan->created;
        return catalog_reserve(db, &db->catalog, ++plan->created);
    }
    if (atomic_load(&change->collection->dropped))
        return error_set(OMENDB_DROPPED, "collection \"%s\" was dropped", change->collection->name);
    if (change->kind == CHANGE_DROP)
        return prepared_check_drop(db, change->collection);
    if (change->kind == CHANGE_LIMITS)
        return quota_reserve(change->collection);
    if (change->kind == CHANGE_DECLARE)
        return OMENDB_OK;
    int code = rest_end_locked(change->collection);
    return code == OMENDB_OK ? commit_validate_records(plan, change) : code;
}

/* ------------------------------------------------------------------ reserving */

/* Rows whose codes a new memtable takes its range from. */
#define COMMIT_CODES_ROWS 256

/* The range of the newest segment that has one, unless the rows have moved away from it or a newer
 * one found none; or one that the vectors about to be added give, or the newest of the memtable.
 * step 0: there is none yet, or none serves. */
static int commit_choose_codes(const struct collection *collection, const struct change *change,
                               struct code_format *format)
{
    const struct version *version =
        atomic_load_explicit(&collection->version, memory_order_relaxed);
    uint8_t *chunk = (uint8_t *)(uintptr_t)change->vectors;
    struct rows_view vectors = {&chunk, 31, UINT32_MAX >> 1, collection->vector_bytes};
    uint32_t first = 0, rows = change->count;
    int drifted = collection->active != NULL && memtable_has_drifted(collection->active);
    *format = (struct code_format){collection->format, 0.0f, 0.0f};
    if (!codes_apply_to(&collection->format))
        return OMENDB_OK;
    for (uint32_t i = version->segment_count; i-- > 0 && !drifted;) {
        if (version->segments[i]->codes.step != 0.0f) {
            *format = version->segments[i]->codes;
            return OMENDB_OK;
        }
        if ((version->segments[i]->info.flags & SEGMENT_NO_RANGE) != 0)
            break;
    }
    if (rows < COMMIT_CODES_ROWS && collection->active != NULL) {
        uint32_t count = atomic_load_explicit(&collection->active->count, memory_order_relaxed);
        rows = count < CODES_SAMPLE_VECTORS ? count : CODES_SAMPLE_VECTORS;
        first = count - rows;
        vectors = memtable_vectors(collection->active);
    }
    return rows < COMMIT_CODES_ROWS ? OMENDB_OK
                                    : part_choose_codes(collection, &vectors, first, rows, format);
}

static int commit_add_memtable(omendb *db, struct collection *collection,
                               const struct code_format *codes, int graphless)
{
    struct version *old = atomic_load_explicit(&collection->version, memory_order_relaxed);
    struct version *version =
        version_create(&db->memory, old->memtable_count + 1, old->segment_count);
    struct graph_config config;
    struct memtable *memtable;
    if (version == NULL)
        return OMENDB_NOMEM;
    collection_graph_config(collection, &config);
    int code = memtable_create(&db->memory, &config, codes, graphless, &db->hash_seed, &memtable);
    if (code != OMENDB_OK) {
        version_release(version);
        return code;
    }
    version_put_all(version, old);
    version->memtables[old->memtable_count] = memtable;
    collection->active = memtable;
    version_install(collection, version);
    return OMENDB_OK;
}

/* Rows go to the active memtable. One that began with too few rows to choose codes by, or whose
 * codes do not fit what came since, is left behind, for one with other codes or with none. Where a
 * choice anew comes to the same codes, they are as good as any: without that there would be no end
 * of drifting. */
static int commit_reserve_memtable(omendb *db, const struct change *change, int replay)
{
    struct collection *collection = change->collection;
    struct memtable *active = collection->active;
    struct code_format codes = {collection->format, 0.0f, 0.0f};
    if (replay)
        return active != NULL ? OMENDB_OK : commit_add_memtable(db, collection, &codes, 1);
    const struct version *version =
        atomic_load_explicit(&collection->version, memory_order_relaxed);
    if (active != NULL &&
        (active->codes_tried || version->memtable_count >= COMMIT_MAX_MEMTABLES - 1))
        return OMENDB_OK;
    if (active != NULL && !memtable_has_drifted(active) &&
        (active->codes.step != 0.0f || !codes_apply_to(&collection->format) ||
         atomic_load_explicit(&active->count, memory_order_relaxed) < COMMIT_CODES_ROWS))
        return OMENDB_OK;
    int code = commit_choose_codes(collection, change, &codes);
    if (code != OMENDB_OK)
        return code;
    if (active != NULL && codes.step == 0.0f && active->codes.step == 0.0f) {
        active->codes_tried = 1;
        return OMENDB_OK;
    }
    if (active != NULL && active->codes.step != 0.0f && codes_are_alike(&codes, &active->codes)) {
        memtable_forgive(active);
        return OMENDB_OK;
    }
    code = commit_add_memtable(db, collection, &codes, 0);
    if (code == OMENDB_OK && active != NULL && codes.step == 0.0f)
        collection->active->codes_tried = 1;
    return code;
}

static int commit_adds(const struct change *change)
{
    return (change->kind == CHANGE_ADD || change->kind == CHANGE_PUT) && change->count != 0;
}

/* All memory that applying the change will need. */
static int commit_reserve(omendb *db, struct change *change, int replay)
{
    struct collection *collection = change->collection;
    int code = OMENDB_OK;
    if (!commit_adds(change))
        return OMENDB_OK;
    code = commit_reserve_memtable(db, change, replay);
    /* Changes of one commit may add to one collection more than once: in a log that lies. */
    if (code == OMENDB_OK && change->count > GRAPH_MAX_ROWS - collection->reserving)
        code = error_set(OMENDB_TOOBIG, "a commit of more than 2^31 rows");
    if (code == OMENDB_OK) {
        collection->reserving += change->count;
        collection->reserving_keys += change->keys;
        collection->reserving_documents =
            memory_add(collection->reserving_documents, change->document_bytes);
        code = memtable_reserve(collection->active, collection->reserving,
                                collection->reserving_keys, collection->reserving_documents);
    }
    return code;
}

/* Where the version has the overlay of the row's memtable or segment. */
static struct overlay **commit_overlay_of(const struct version *version,
                                          const struct location *location)
{
    uint32_t i = 0;
    if (location->segment != NULL) {
        while (version->segments[i] != location->segment)
            i++;
        return &version->segment_overlays[i];
    }
    while (version->memtables[i] != location->memtable)
        i++;
    return &version->memtable_overlays[i];
}

/* An overlay that takes what is committed, in a new version where there was none. The location is
 * told. */
static int commit_add_overlay(struct collection *collection, struct location *location)
{
    struct memory *memory = &collection->db->memory;
    struct version *old = atomic_load_explicit(&collection->version, memory_order_relaxed);
    struct overlay *before = *commit_overlay_of(old, location);
    location->overlay = before;
    if (overlay_top(before) != NULL)
        return OMENDB_OK;
    struct version *version = version_create(memory, old->memtable_count, old->segment_count);
    struct overlay *made = overlay_extend(
        memory, before, location->segment == NULL ? 0 : location->segment->info.rows);
    if (version == NULL || made == NULL) {
        overlay_release(made);
        version_release(version);
        return OMENDB_NOMEM;
    }
    version_put_all(version, old);
    struct overlay **place = commit_overlay_of(version, location);
    overlay_release(*place);
    *place = location->overlay = made;
    version_install(collection, version);
    return OMENDB_OK;
}

/* All memory that updates will need; the locations are those of the changes, in order. */
static int commit_reserve_updates(struct commit_plan *plan, const struct change *changes,
                                  size_t count)
{
    struct location *at = plan->updated;
    int code = OMENDB_OK;
    for (size_t i = 0; i < count && plan->updated_count != 0; i++) {
        for (uint32_t r = 0; changes[i].kind == CHANGE_UPDATE && r < changes[i].count; r++, at++) {
            if (at->segment == NULL && at->memtable == NULL)
                continue;
            code = commit_add_overlay(changes[i].collection, at);
            if (code != OMENDB_OK)
                return code;
            overlay_top(at->overlay)->reserving = 0;
            overlay_top(at->overlay)->reserving_bytes = 0;
        }
    }
    at = plan->updated;
    for (size_t i = 0; i < count && plan->updated_count != 0; i++) {
        for (uint32_t r = 0; changes[i].kind == CHANGE_UPDATE && r < changes[i].count; r++, at++) {
            if (at->overlay == NULL)
                continue;
            overlay_top(at->overlay)->reserving++;
            if (changes[i].document_sizes != NULL)
                overlay_top(at->overlay)->reserving_bytes += changes[i].document_sizes[r];
        }
    }
    for (size_t i = 0; i < plan->updated_count && code == OMENDB_OK; i++) {
        struct overlay_recent *top = overlay_top(plan->updated[i].overlay);
        if (top != NULL)
            code = overlay_reserve(top, top->reserving, top->reserving_bytes);
    }
    return code;
}

static int commit_reserve_all(omendb *db, struct commit_plan *plan, struct change *changes,
                              size_t count)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < count; i++) {
        struct collection *collection = changes[i].collection;
        if (commit_adds(&changes[i]))
            collection->reserving = collection->reserving_keys = 0;
        if (commit_adds(&changes[i]))
            collection->reserving_documents = 0;
    }
    for (size_t i = 0; i < count && code == OMENDB_OK; i++)
        code = commit_reserve(db, &changes[i], plan->replay);
    for (size_t i = 0; i < plan->victim_count && code == OMENDB_OK; i++) {
        const struct location *victim = &plan->victims[i];
        if (victim->memtable != NULL)
            code = tombstones_prepare(victim->memtable->tombstones, victim->row);
        else if (victim->segment != NULL)
            code = tombstones_prepare(victim->segment->tombstones, victim->row);
    }
    return code == OMENDB_OK ? commit_reserve_updates(plan, changes, count) : code;
}

/* ------------------------------------------------------------------ logging */

/* Head of a change, and for CREATE the body; returns the bytes used, a multiple of 8. */
static size_t commit_encode_head(const struct change *change, uint8_t *out)
{
    uint32_t kind = change->kind;
    if (change->document_sizes != NULL && kind != CHANGE_UPDATE)
        kind = kind == CHANGE_ADD ? CHANGE_ADD_DOCUMENTS : CHANGE_PUT_DOCUMENTS;
    format_put32(out, kind);
    format_put32(out + 4, change->count);
    format_put64(out + 8, change->collection->id);
    if (change->kind != CHANGE_CREATE)
        return COMMIT_HEAD_BYTES;
    const omendb_schema *schema = &change->collection->schema;
    uint8_t *body = out + COMMIT_HEAD_BYTES;
    size_t name_bytes = strlen(change->collection->name);
    const uint32_t fields[] = {schema->dim, schema->metric,      schema->scalar,
                               0,           schema->M,           schema->ef_construction,
                               schema->ef,  (uint32_t)name_bytes};
    memcpy(body, fields, sizeof fields);
    memcpy(body + 12, &schema->scale, sizeof schema->scale);
    format_put64(body + 32, schema->seed);
    size_t padded = (name_bytes + 7) / 8 * 8;
    memset(body + COMMIT_CREATE_BYTES, 0, padded);
    memcpy(body + COMMIT_CREATE_BYTES, change->collection->name, name_bytes);
    return COMMIT_HEAD_BYTES + COMMIT_CREATE_BYTES + padded;
}

#define COMMIT_HEAD_MAX (COMMIT_HEAD_BYTES + COMMIT_CREATE_BYTES + 256)

static int commit_is_setting(uint32_t kind)
{
    return kind == CHANGE_LIMITS || kind == CHANGE_DECLARE;
}

static size_t commit_pieces(const struct change *change, uint8_t *head,
                            struct wal_piece pieces[COMMIT_PIECES])
{
    static const uint8_t zeros[8];
    int of_records = commit_is_of_records(change->kind);
    if (of_records && change->count == 0)
        return 0;
    pieces[0] = (struct wal_piece){head, commit_encode_head(change, head)};
    if (commit_is_setting(change->kind))
        pieces[1] = (struct wal_piece){change->setting, change->count};
    if (!of_records)
        return commit_is_setting(change->kind) ? 2 : 1;
    pieces[1] = (struct wal_piece){change->ids, change->count * sizeof(uint64_t)};
    size_t used = 2, bytes = change->count * change->collection->vector_bytes;
    if (change->kind == CHANGE_ADD || change->kind == CHANGE_PUT) {
        pieces[used++] = (struct wal_piece){change->vectors, bytes};
        pieces[used++] = (struct wal_piece){zeros, (8 - bytes % 8) % 8};
    }
    if (change->document_sizes == NULL)
        return used;
    bytes = change->count * sizeof(uint32_t);
    pieces[used++] = (struct wal_piece){&change->document_bytes, sizeof(uint64_t)};
    pieces[used++] = (struct wal_piece){change->document_sizes, bytes};
    pieces[used++] = (struct wal_piece){zeros, (8 - bytes % 8) % 8};
    pieces[used++] = (struct wal_piece){change->documents, change->document_bytes};
    return used;
}

OMENDB_INTERNAL size_t commit_encoded_bytes(const struct change *changes, size_t count)
{
    uint8_t head[COMMIT_HEAD_MAX];
    struct wal_piece pieces[COMMIT_PIECES];
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        for (size_t p = commit_pieces(&changes[i], head, pieces); p-- > 0;)
            bytes = memory_add(bytes, pieces[p].size);
    }
    return bytes;
}

OMENDB_INTERNAL void commit_encode(const struct change *changes, size_t count, uint8_t *out)
{
    uint8_t head[COMMIT_HEAD_MAX];
    struct wal_piece pieces[COMMIT_PIECES];
    for (size_t i = 0; i < count; i++) {
        size_t used = commit_pieces(&changes[i], head, pieces);
        for (size_t p = 0; p < used; p++) {
            if (pieces[p].size != 0)
                memcpy(out, pieces[p].data, pieces[p].size);
            out += pieces[p].size;
        }
    }
}

static int commit_append_pieces(omendb *db, const struct wal_piece *pieces, size_t count,
                                uint64_t commit)
{
    size_t bytes = 0;
    int code = db->wal == NULL ? OMENDB_OK : wal_append(db->wal, commit, WAL_COMMIT, pieces, count);
    for (size_t i = 0; i < count; i++)
        bytes += pieces[i].size;
    if (code == OMENDB_OK)
        atomic_fetch_add(&db->log_bytes, bytes);
    return code;
}

static int commit_append_changes(omendb *db, const struct change *changes, size_t count,
                                 uint64_t commit)
{
    struct wal_piece one_pieces[COMMIT_PIECES], *pieces = one_pieces;
    uint8_t one_head[COMMIT_HEAD_MAX], *heads = one_head;
    size_t used = 0;
    int code = OMENDB_OK;
    if (count > 1) {
        pieces = memory_array(&db->memory, count, COMMIT_PIECES * sizeof *pieces);
        heads = memory_array(&db->memory, count, COMMIT_HEAD_MAX);
        if (pieces == NULL || heads == NULL)
            code = OMENDB_NOMEM;
    }
    for (size_t i = 0; i < count && code == OMENDB_OK; i++)
        used += commit_pieces(&changes[i], heads + i * COMMIT_HEAD_MAX, pieces + used);
    if (code == OMENDB_OK)
        code = commit_append_pieces(db, pieces, used, commit);
    if (count > 1) {
        memory_free(&db->memory, pieces, count * COMMIT_PIECES * sizeof *pieces);
        memory_free(&db->memory, heads, count * COMMIT_HEAD_MAX);
    }
    return code;
}

/* A prepared transaction comes: as one that waits, or with an outcome that it had elsewhere. */
static int commit_holds(const struct commit_order *order)
{
    return order->prepared != NULL && (order->state == OMENDB_PREPARED_WAITING || order->remembers);
}

static int commit_append(omendb *db, const struct commit_order *order, uint64_t commit)
{
    uint8_t head[PREPARED_HEAD_MAX];
    struct wal_piece pieces[PREPARED_PIECES];
    if (order->prepared == NULL)
        return commit_append_changes(db, order->changes, order->count, commit);
    uint32_t kind = !commit_holds(order)                      ? CHANGE_SETTLE
                    : order->state == OMENDB_PREPARED_WAITING ? CHANGE_PREPARE
                                                              : CHANGE_REMEMBER;
    size_t count = prepared_pieces(order->prepared, kind, order->state, head, pieces);
    return commit_append_pieces(db, pieces, count, commit);
}

/* ------------------------------------------------------------------ applying */

static void commit_end_row(const struct location *victim, uint64_t commit)
{
    if (victim->memtable != NULL)
        tombstones_set(victim->memtable->tombstones, victim->row, commit);
    else if (victim->segment != NULL)
        tombstones_set(victim->segment->tombstones, victim->row, commit);
}

static void commit_apply_catalog(omendb *db, const struct change *change)
{
    if (change->kind == CHANGE_CREATE) {
        catalog_insert(&db->catalog, collection_reference(change->collection));
        if (change->collection->id >= db->next_collection)
            db->next_collection = change->collection->id + 1;
    } else {
        atomic_store(&change->collection->dropped, 1);
        catalog_remove(&db->catalog, change->collection);
        collection_release(change->collection);
    }
}

static void commit_apply_setting(const struct change *change)
{
    omendb_limits limits;
    if (change->kind == CHANGE_DECLARE) {
        fields_set(change->collection, *change->declared);
        *change->declared = NULL;
        return;
    }
    manifest_decode_limits(change->setting, &limits);
    quota_set(change->collection, &limits);
}

static void commit_apply_rows(const struct change *change, uint64_t commit)
{
    struct collection *collection = change->collection;
    uint64_t next = atomic_load_explicit(&collection->next_id, memory_order_relaxed);
    const uint8_t *at = change->documents;
    for (uint32_t i = 0; i < change->count; i++) {
        OMENDB_YIELD("commit_apply_rows");
        int is_new = change->ids[i] >= next; /* above all that were ever used */
        if (i + COMMIT_AHEAD < change->count)
            memtable_prefetch(collection->active, change->ids[i + COMMIT_AHEAD]);
        memtable_append(collection->active, change->ids[i],
                        change->vectors + i * collection->vector_bytes,
                        change_next_document(change, i, &at), commit, is_new);
        if (is_new)
            next = change->ids[i] + 1;
    }
    atomic_store_explicit(&collection->next_id, next, memory_order_relaxed);
}

/* The documents that records have from this commit on. `at`: where the rows of the change are;
 * returns where those of the next one are. */
static const struct location *commit_apply_updates(const struct change *change, uint64_t commit,
                                                   const struct location *at)
{
    const uint8_t *documents = change->documents;
    for (uint32_t i = 0; i < change->count; i++, at++) {
        OMENDB_YIELD("commit_apply_updates");
        const uint8_t *document = change_next_document(change, i, &documents);
        if (at->overlay != NULL)
            overlay_append(at->overlay, at->row, commit, document);
    }
    return at;
}

/* Nothing in here can fail. */
static void commit_apply_changes(omendb *db, const struct commit_plan *plan,
                                 const struct change *changes, size_t count, uint64_t commit)
{
    for (size_t i = 0; i < plan->victim_count; i++)
        commit_end_row(&plan->victims[i], commit);
    const struct location *updated = plan->updated;
    for (size_t i = 0; i < count; i++) {
        if (changes[i].kind == CHANGE_CREATE || changes[i].kind == CHANGE_DROP)
            commit_apply_catalog(db, &changes[i]);
        else if (commit_is_setting(changes[i].kind))
            commit_apply_setting(&changes[i]);
        else if (changes[i].kind == CHANGE_UPDATE)
            updated = commit_apply_updates(&changes[i], commit, updated);
        else if (changes[i].kind != CHANGE_DELETE)
            commit_apply_rows(&changes[i], commit);
        if (commit_is_of_records(changes[i].kind))
            quota_account_change(&changes[i]);
    }
    db->appended_commit = commit;
}

static void commit_apply(omendb *db, const struct commit_plan *plan,
                         const struct commit_order *order, uint64_t commit)
{
    struct prepared *prepared = order->prepared;
    int held = commit_holds(order);
    if (!held)
        commit_apply_changes(db, plan, order->changes, order->count, commit);
    db->appended_commit = commit;
    if (prepared == NULL)
        return;
    prepared->commit = commit;
    db->prepared.last_step = commit;
    if (held)
        prepared_hold(db, prepared);
    else
        prepared_settle(db, prepared, order->state);
}

/* ------------------------------------------------------------------ the whole */

static int commit_has_work(const struct commit_order *order)
{
    int work = order->prepared != NULL;
    for (size_t i = 0; i < order->count; i++)
        work |= order->changes[i].count != 0 || order->changes[i].kind == CHANGE_CREATE ||
                order->changes[i].kind == CHANGE_DROP;
    return work;
}

/* Whether limits and declarations are asked: not where a log is replayed, nor at the outcome of
 * what was prepared, which has room reserved. */
static int commit_is_limited(const struct commit_order *order, int replay)
{
    return !replay && (order->prepared == NULL || commit_holds(order));
}

/* What the collections' owners ask for. *by_rate: as quota_check_changes. */
static int commit_check_settings(const struct commit_order *order, int *by_rate)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < order->count && code == OMENDB_OK; i++)
        code = fields_check_change(&order->changes[i]);
    return code == OMENDB_OK ? quota_check_changes(order->changes, order->count, by_rate) : code;
}

/* commit_mutex. commit: in for replay; out: the number given, or 0 when nothing was left to do. */
static int commit_locked(omendb *db, const struct commit_order *order, int replay, uint64_t *commit)
{
    struct commit_plan plan = {
        .snapshot = order->snapshot, .replay = replay, .prepared = order->prepared};
    uint64_t number = replay ? *commit : db->appended_commit + 1;
    int by_rate = 0, code = commit_plan_reserve(db, &plan, order->changes, order->count);
    for (size_t i = 0; i < order->count && code == OMENDB_OK; i++)
        code = commit_validate(db, &plan, &order->changes[i]);
    if (code != OMENDB_OK || !commit_has_work(order)) {
        *commit = replay ? number : 0;
        goto done;
    }
    if (commit_is_limited(order, replay))
        code = commit_check_settings(order, &by_rate);
    if (by_rate) /* which tells nothing of what others commit */
        *commit = atomic_load(&db->visible_commit);
    if (code != OMENDB_OK)
        goto done;
    code = commit_holds(order) ? prepared_reserve(db, order->prepared)
                               : commit_reserve_all(db, &plan, order->changes, order->count);
    if (code == OMENDB_OK && !replay)
        code = commit_append(db, order, number);
    if (code != OMENDB_OK)
        goto done;
    if (commit_is_limited(order, replay))
        quota_spend_changes(order->changes, order->count);
    commit_apply(db, &plan, order, number);
    *commit = number;
done:
    memory_free(&db->memory, plan.victims, plan.victim_capacity * sizeof *plan.victims);
    memory_free(&db->memory, plan.updated, plan.updated_capacity * sizeof *plan.updated);
    return code;
}

/* The first write after opening begins a log of its own, and publishes that the one that was
 * replayed is no longer needed. */
static int commit_begin_log(omendb *db)
{
    platform_mutex_lock(&db->commit_mutex);
    int missing = !db->log_published && !db->in_memory;
    platform_mutex_unlock(&db->commit_mutex);
    return missing ? checkpoint_run(db, 1) : OMENDB_OK;
}

static void commit_notice(omendb *db, const struct change *changes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (changes[i].kind == CHANGE_ADD || changes[i].kind == CHANGE_PUT)
            work_notice_index(changes[i].collection);
        if (changes[i].kind == CHANGE_DELETE || changes[i].kind == CHANGE_PUT)
            work_notice_merge(changes[i].collection);
    }
    if (atomic_load(&db->log_bytes) >= db->wal_limit)
        work_notice_log(db);
}

/* Writers are slowed by what they bring; what only deletes is not. */
static uint64_t commit_throttled_bytes(const struct change *change)
{
    if (change->kind == CHANGE_ADD || change->kind == CHANGE_PUT)
        return change->count * (uint64_t)change->collection->vector_bytes;
    return change->kind == CHANGE_UPDATE && change->count != 0 ? change->document_bytes + 1 : 0;
}

/* What the rate of writes will refuse is refused before it waits for anything: by the writes that
 * are slowed, of which none is left out later. */
static int commit_throttle(const struct commit_order *order)
{
    const struct change *changes = order->changes;
    int code = OMENDB_OK;
    for (size_t i = 0; i < order->count && commit_is_limited(order, 0) && code == OMENDB_OK; i++) {
        if (commit_throttled_bytes(&changes[i]) != 0)
            code = quota_foresee_rate(changes[i].collection, changes[i].count);
    }
    for (size_t i = 0; i < order->count && code == OMENDB_OK; i++)
        code = work_throttle(changes[i].collection, commit_throttled_bytes(&changes[i]));
    return code;
}

/* Whether a commit returns only when it is on the device. One of two phases is worth nothing
 * before, so OMENDB_SYNC_NORMAL syncs it, too. */
static int commit_is_awaited(const omendb *db, int two_phases)
{
    return !db->in_memory &&
           (db->sync == OMENDB_SYNC_FULL || (two_phases && db->sync == OMENDB_SYNC_NORMAL));
}

OMENDB_INTERNAL int commit_await(omendb *db, uint64_t commit, int two_phases)
{
    return commit_is_awaited(db, two_phases) ? commit_wait(db, commit) : OMENDB_OK;
}

/* Done, or refused for what is stored: that may be the work of a commit which is neither durable
 * nor visible yet, so it is waited for before the caller is told. */
static int commit_tells_state(int code)
{
    return code == OMENDB_OK || code == OMENDB_EXISTS || code == OMENDB_NOTFOUND ||
           code == OMENDB_CONFLICT || code == OMENDB_DROPPED || code == OMENDB_QUOTA;
}

OMENDB_INTERNAL int commit_run(omendb *db, const struct commit_order *order, int *applied)
{
    uint64_t commit = 0;
    int two_phases = order->prepared != NULL && !order->remembers;
    int code = commit_check_writable(db);
    *applied = 0;
    if (code == OMENDB_OK)
        code = commit_begin_log(db);
    if (code == OMENDB_OK)
        code = commit_throttle(order);
    if (code != OMENDB_OK)
        return code;
    platform_mutex_lock(&db->commit_mutex);
    code = commit_check_writable(db);
    if (code == OMENDB_OK)
        code = commit_locked(db, order, 0, &commit);
    *applied = code == OMENDB_OK && commit != 0;
    if (*applied && !commit_is_awaited(db, two_phases))
        commit_publish(db, commit);
    uint64_t told = commit != 0 ? commit : db->appended_commit;
    platform_mutex_unlock(&db->commit_mutex);
    if (code == OMENDB_POISONED)
        commit_poison(db, code);
    int waited = commit_tells_state(code) ? commit_await(db, told, two_phases) : OMENDB_OK;
    code = waited == OMENDB_OK ? code : waited;
    if (code == OMENDB_OK && *applied)
        commit_notice(db, order->changes, order->count);
    return code;
}

OMENDB_INTERNAL int commit_changes(omendb *db, struct change *changes, size_t count,
                                   uint64_t snapshot)
{
    struct commit_order order = {changes, count, snapshot, NULL, 0, 0};
    int applied;
    return commit_run(db, &order, &applied);
}

/* ------------------------------------------------------------------ replaying */

/* The code is a constant, so that compilers see that nothing is used which was not decoded. */
static int commit_bad_payload(uint64_t commit, size_t at)
{
    error_set(OMENDB_CORRUPT,
              "log: commit %llu: byte %zu of the payload makes no sense; " ERROR_RESTORE,
              (unsigned long long)commit, at);
    return OMENDB_CORRUPT;
}

OMENDB_INTERNAL int commit_decode_head(const uint8_t *payload, size_t size,
                                       struct commit_logged *logged)
{
    if (size < COMMIT_HEAD_BYTES)
        return 0;
    memcpy(&logged->kind, payload, 4);
    memcpy(&logged->count, payload + 4, 4);
    memcpy(&logged->collection, payload + 8, 8);
    logged->documents = logged->kind == CHANGE_ADD_DOCUMENTS ||
                        logged->kind == CHANGE_PUT_DOCUMENTS || logged->kind == CHANGE_UPDATE;
    if (logged->documents && logged->kind != CHANGE_UPDATE)
        logged->kind = logged->kind == CHANGE_ADD_DOCUMENTS ? CHANGE_ADD : CHANGE_PUT;
    logged->body = payload + COMMIT_HEAD_BYTES;
    logged->left = size - COMMIT_HEAD_BYTES;
    return 1;
}

OMENDB_INTERNAL int commit_is_of_records(uint32_t kind)
{
    return (kind >= CHANGE_ADD && kind <= CHANGE_DELETE) || kind == CHANGE_UPDATE;
}

OMENDB_INTERNAL size_t commit_body_bytes(const struct commit_logged *logged, size_t vector_bytes)
{
    size_t vectors = 0;
    if (logged->kind == CHANGE_DROP)
        return 0;
    if (logged->kind == CHANGE_ADD || logged->kind == CHANGE_PUT)
        vectors = memory_add(memory_multiply(logged->count, vector_bytes), 7) / 8 * 8;
    size_t bytes = memory_add(memory_multiply(logged->count, sizeof(uint64_t)), vectors);
    if (!logged->documents || bytes > logged->left)
        return bytes;
    size_t sizes = ((size_t)logged->count * sizeof(uint32_t) + 7) / 8 * 8;
    uint64_t documents = logged->left - bytes < 8 ? 0 : format_get64(logged->body + bytes);
    bytes = memory_add(bytes, memory_add(8, sizes));
    /* Whole documents, so that what follows them is aligned. */
    return documents > SIZE_MAX || documents % 8 != 0 ? SIZE_MAX
                                                      : memory_add(bytes, (size_t)documents);
}

OMENDB_INTERNAL size_t commit_setting_bytes(const struct commit_logged *logged)
{
    if (logged->count > logged->left)
        return 0;
    if (logged->kind == CHANGE_DECLARE)
        return declaration_check(logged->body, logged->count) == NULL ? logged->count : 0;
    return logged->count == FORMAT_LIMITS_BYTES ? logged->count : 0;
}

/* Each one is whole, and together they are as many bytes as is said. */
static int commit_check_documents(struct change *change)
{
    const uint8_t *document = change->documents;
    size_t left = change->document_bytes;
    for (uint32_t i = 0; i < change->count; i++) {
        uint32_t key_size, size = change->document_sizes[i];
        if (size > left || (size != 0 && document_check(document, size) != NULL))
            return 0;
        if (size != 0 && change->kind != CHANGE_UPDATE)
            change->keys += document_key(document, &key_size) != NULL;
        document += size;
        left -= size;
    }
    return left == 0;
}

OMENDB_INTERNAL int commit_decode_body(const struct commit_logged *logged, size_t vector_bytes,
                                       struct change *change)
{
    const int has_vectors = logged->kind == CHANGE_ADD || logged->kind == CHANGE_PUT;
    size_t count = logged->count, vectors = has_vectors ? (count * vector_bytes + 7) / 8 * 8 : 0;
    change->kind = logged->kind;
    change->count = logged->count;
    change->ids = (uint64_t *)(uintptr_t)logged->body;
    change->vectors = logged->body + count * sizeof(uint64_t);
    if (!logged->documents)
        return 1;
    const uint8_t *at = change->vectors + vectors;
    change->document_bytes = (size_t)format_get64(at);
    change->document_sizes = (const uint32_t *)(const void *)(at + 8);
    change->documents = at + 8 + (count * sizeof(uint32_t) + 7) / 8 * 8;
    return commit_check_documents(change);
}

OMENDB_INTERNAL int commit_decode_schema(const uint8_t *body, size_t size, size_t *used,
                                         char name[256], omendb_schema *complete)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    uint32_t fields[8];
    if (size < COMMIT_CREATE_BYTES)
        return OMENDB_CORRUPT;
    memcpy(fields, body, sizeof fields);
    size_t padded = ((size_t)fields[7] + 7) / 8 * 8;
    if (fields[7] == 0 || fields[7] > 255 || padded > size - COMMIT_CREATE_BYTES)
        return OMENDB_CORRUPT;
    schema.dim = fields[0];
    schema.metric = fields[1];
    schema.scalar = fields[2];
    memcpy(&schema.scale, body + 12, sizeof schema.scale);
    schema.M = fields[4];
    schema.ef_construction = fields[5];
    schema.ef = fields[6];
    memcpy(&schema.seed, body + 32, sizeof schema.seed);
    memset(name, 0, 256);
    memcpy(name, body + COMMIT_CREATE_BYTES, fields[7]);
    *used = COMMIT_CREATE_BYTES + padded;
    if (strlen(name) != fields[7])
        return OMENDB_CORRUPT;
    return schema_complete(&schema, complete) == OMENDB_OK ? OMENDB_OK : OMENDB_CORRUPT;
}

static int commit_decode_create(omendb *db, uint64_t id, const uint8_t *body, size_t size,
                                size_t *used, struct collection **collection)
{
    omendb_schema complete;
    char name[256];
    *collection = NULL;
    if (id == 0 || id >= MANIFEST_LARGEST_NUMBER)
        return OMENDB_CORRUPT;
    int code = commit_decode_schema(body, size, used, name, &complete);
    if (code == OMENDB_OK && !manifest_name_is_legal(name))
        code = OMENDB_CORRUPT;
    return code == OMENDB_OK ? collection_create(db, id, name, &complete, collection) : code;
}

static int commit_replay_create(omendb *db, uint64_t commit, struct change *change, uint64_t id,
                                const uint8_t *body, size_t size, size_t *used)
{
    struct collection *created;
    int code = commit_decode_create(db, id, body, size, used, &created);
    if (code != OMENDB_OK)
        return code == OMENDB_CORRUPT ? commit_bad_payload(commit, COMMIT_HEAD_BYTES) : code;
    /* A refreshed reader has it already, emptied; its handles stay good. */
    if (catalog_by_id(&db->catalog, id) != NULL) {
        collection_release(created);
        return OMENDB_OK;
    }
    /* It may also have a later one of that name already: the log goes on to a drop of this one. */
    change->collection = created;
    code = catalog_has_older(&db->catalog, created->name, db->next_collection)
               ? commit_bad_payload(commit, COMMIT_HEAD_BYTES)
               : catalog_reserve(db, &db->catalog, 1);
    if (code == OMENDB_OK) {
        struct commit_plan plan = {.snapshot = UINT64_MAX, .replay = 1};
        commit_apply_changes(db, &plan, change, 1, commit);
    }
    collection_release(created);
    return code;
}

OMENDB_INTERNAL int commit_decode(omendb *db, uint64_t commit, const uint8_t *payload, size_t size,
                                  struct change *change, size_t *used)
{
    struct commit_logged logged;
    memset(change, 0, sizeof *change);
    if (!commit_decode_head(payload, size, &logged))
        return commit_bad_payload(commit, 0);
    change->collection = catalog_by_id(&db->catalog, logged.collection);
    if (!commit_is_of_records(logged.kind) || change->collection == NULL)
        return commit_bad_payload(commit, 0);
    size_t bytes = commit_body_bytes(&logged, change->collection->vector_bytes);
    if (bytes > logged.left)
        return commit_bad_payload(commit, 4);
    *used = COMMIT_HEAD_BYTES + bytes;
    return commit_decode_body(&logged, change->collection->vector_bytes, change)
               ? OMENDB_OK
               : commit_bad_payload(commit, COMMIT_HEAD_BYTES);
}

OMENDB_INTERNAL int commit_check_ids(omendb *db, uint64_t commit, const struct change *change)
{
    uint32_t count = change->count, ascending = 1;
    while (ascending < count && change->ids[ascending - 1] < change->ids[ascending])
        ascending++;
    if (count == 0 || (ascending >= count && change->ids[count - 1] != OMENDB_ID_AUTO))
        return OMENDB_OK;
    uint64_t *sorted = memory_array(&db->memory, count, sizeof *sorted);
    if (sorted == NULL)
        return OMENDB_NOMEM;
    memcpy(sorted, change->ids, count * sizeof *sorted);
    sort_array(sorted, count, sizeof *sorted, sort_compare_numbers);
    int wrong = sorted[count - 1] == OMENDB_ID_AUTO;
    for (uint32_t i = 1; i < count; i++)
        wrong |= sorted[i] == sorted[i - 1];
    memory_free(&db->memory, sorted, count * sizeof *sorted);
    return wrong ? commit_bad_payload(commit, COMMIT_HEAD_BYTES) : OMENDB_OK;
}

/* Changes of records. A delete drops absent ids from the list, so the list is a copy. */
static int commit_replay_rows(omendb *db, uint64_t commit, struct change *change)
{
    size_t id_bytes = change->count * sizeof(uint64_t);
    uint64_t *ids = memory_array(&db->memory, change->count, sizeof *ids);
    if (ids == NULL)
        return OMENDB_NOMEM;
    memcpy(ids, change->ids, id_bytes);
    change->ids = ids;
    change->skip_missing = 1;
    int code = commit_check_ids(db, commit, change);
    struct commit_order order = {change, 1, UINT64_MAX, NULL, 0, 0};
    if (code == OMENDB_OK)
        code = commit_locked(db, &order, 1, &commit);
    memory_free(&db->memory, ids, id_bytes);
    return code;
}

static int commit_replay_drop(omendb *db, uint64_t commit, struct change *change)
{
    struct commit_order order = {change, 1, UINT64_MAX, NULL, 0, 0};
    change->count = 0;
    if (change->collection == NULL || prepared_check_drop(db, change->collection) != OMENDB_OK)
        return commit_bad_payload(commit, 8);
    return commit_locked(db, &order, 1, &commit);
}

static int commit_replay_setting(omendb *db, uint64_t commit, struct change *change,
                                 const struct commit_logged *logged)
{
    struct commit_order order = {change, 1, UINT64_MAX, NULL, 0, 0};
    struct declared *made = NULL;
    int code = OMENDB_OK;
    change->setting = logged->body;
    change->declared = &made;
    if (change->collection == NULL || commit_setting_bytes(logged) == 0)
        return commit_bad_payload(commit, 4);
    if (change->kind == CHANGE_DECLARE)
        code = fields_make(db, logged->body, logged->count, &made);
    if (code == OMENDB_OK)
        code = commit_locked(db, &order, 1, &commit);
    fields_discard(db, made);
    return code;
}

/* One change at `payload`; *used receives its bytes. */
static int commit_replay_change(omendb *db, uint64_t commit, const uint8_t *payload, size_t size,
                                size_t *used)
{
    struct commit_logged logged;
    size_t body_bytes = 0;
    if (!commit_decode_head(payload, size, &logged))
        return commit_bad_payload(commit, 0);
    struct change change = {.kind = logged.kind, .count = logged.count};
    int code;
    if (logged.kind >= CHANGE_PREPARE && logged.kind <= CHANGE_REMEMBER)
        return prepared_replay(db, commit, payload, size, used);
    change.collection = catalog_by_id(&db->catalog, logged.collection);
    *used = COMMIT_HEAD_BYTES;
    switch (logged.kind) {
    case CHANGE_CREATE:
        if (change.collection != NULL && !db->read_only)
            return commit_bad_payload(commit, 8);
        code = commit_replay_create(db, commit, &change, logged.collection, logged.body,
                                    logged.left, &body_bytes);
        *used += body_bytes;
        return code;
    case CHANGE_DROP:
        return commit_replay_drop(db, commit, &change);
    case CHANGE_LIMITS:
    case CHANGE_DECLARE:
        *used += commit_setting_bytes(&logged);
        return commit_replay_setting(db, commit, &change, &logged);
    default:
        code = commit_decode(db, commit, payload, size, &change, used);
        return code == OMENDB_OK ? commit_replay_rows(db, commit, &change) : code;
    }
}

OMENDB_INTERNAL int commit_replay_records(omendb *db, uint64_t commit, const uint8_t *payload,
                                          size_t size)
{
    int code = OMENDB_OK;
    for (size_t at = 0, used = 0; at < size && code == OMENDB_OK; at += used) {
        struct change change;
        code = commit_decode(db, commit, payload + at, size - at, &change, &used);
        if (code == OMENDB_OK)
            code = commit_replay_rows(db, commit, &change);
    }
    return code;
}

OMENDB_INTERNAL int commit_replay(omendb *db, uint64_t commit, const uint8_t *payload, size_t size)
{
    size_t at = 0;
    int code = OMENDB_OK;
    platform_mutex_lock(&db->commit_mutex);
    uint64_t before = db->appended_commit;
    while (at < size && code == OMENDB_OK) {
        size_t used = 0;
        code = commit_replay_change(db, commit, payload + at, size - at, &used);
        at += used;
    }
    if (code == OMENDB_OK) {
        db->appended_commit = commit;
        db->durable_commit = commit;
        commit_publish(db, commit);
        atomic_fetch_add(&db->log_bytes, size);
    } else {
        db->appended_commit = before; /* a refresh that is tried again applies the whole commit */
    }
    platform_mutex_unlock(&db->commit_mutex);
    return code;
}

#undef COMMIT_HEAD_BYTES
#undef COMMIT_CREATE_BYTES
#undef COMMIT_PIECES
#undef COMMIT_AHEAD
#undef COMMIT_HEAD_MAX
#undef COMMIT_CODES_ROWS
