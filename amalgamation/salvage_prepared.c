/* salvage_prepared.c: prepared transactions of a damaged database.
 *
 * The logs are followed as recovery follows them: what is prepared is kept until its outcome, which
 * applies it or drops it. What waits at the end is prepared in the new database, outcomes that are
 * remembered are remembered there.
 *
 * Where the log has holes, what it says later is right: an outcome ends what waits under its name,
 * also when it comes from a copy that the next log begins with; other changes under a known name
 * are another transaction, of which the first one's end was lost; and so it was where two that wait
 * hold one record. Without a hole none of that happens, and a copy says what is known.
 *
 * Memory: the changes of what waits, once here and once in the new database, and every name. */
#include "salvage.h"
#include "format.h"
#include "lifecycle.h"
#include "records.h"

#include <string.h>

/* Records of one change at a time: with the longest vectors they fit into a batch. */
#define SALVAGE_RUN_ROWS 1000

/* Where the name is, or would go. */
static size_t salvage_prepared_place(const struct salvage *salvage, const char *name)
{
    size_t low = 0, high = salvage->prepared_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(salvage->prepared[middle]->name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct salvage_prepared *salvage_prepared_find(const struct salvage *salvage,
                                                      const char *name)
{
    size_t at = salvage_prepared_place(salvage, name);
    return at < salvage->prepared_count && strcmp(salvage->prepared[at]->name, name) == 0
               ? salvage->prepared[at]
               : NULL;
}

static void salvage_prepared_forget_changes(struct salvage *salvage, struct salvage_prepared *item)
{
    memory_free(&salvage->memory, item->changes, item->size);
    item->changes = NULL;
    item->size = 0;
}

/* The item of that name, new where it was not known: then without changes. */
static int salvage_prepared_add(struct salvage *salvage, const char *name,
                                struct salvage_prepared **item)
{
    void *items = salvage->prepared;
    *item = salvage_prepared_find(salvage, name);
    if (*item != NULL)
        return OMENDB_OK;
    int code = salvage_grow(salvage, &items, &salvage->prepared_capacity, salvage->prepared_count,
                            sizeof(struct salvage_prepared *));
    salvage->prepared = items;
    if (code == OMENDB_OK)
        *item = memory_zalloc(&salvage->memory, sizeof **item);
    if (*item == NULL)
        return OMENDB_NOMEM;
    memcpy((*item)->name, name, strlen(name) + 1);
    size_t at = salvage_prepared_place(salvage, name);
    memmove(salvage->prepared + at + 1, salvage->prepared + at,
            (salvage->prepared_count - at) * sizeof(struct salvage_prepared *));
    salvage->prepared[at] = *item;
    salvage->prepared_count++;
    return OMENDB_OK;
}

static void salvage_prepared_remove(struct salvage *salvage, struct salvage_prepared *item)
{
    size_t at = salvage_prepared_place(salvage, item->name);
    salvage_prepared_forget_changes(salvage, item);
    memory_free(&salvage->memory, item, sizeof *item);
    salvage->prepared_count--;
    memmove(salvage->prepared + at, salvage->prepared + at + 1,
            (salvage->prepared_count - at) * sizeof(struct salvage_prepared *));
}

OMENDB_INTERNAL void salvage_prepared_destroy(struct salvage *salvage)
{
    for (size_t i = 0; i < salvage->prepared_count; i++) {
        salvage_prepared_forget_changes(salvage, salvage->prepared[i]);
        memory_free(&salvage->memory, salvage->prepared[i], sizeof **salvage->prepared);
    }
    memory_free(&salvage->memory, salvage->prepared,
                salvage->prepared_capacity * sizeof(struct salvage_prepared *));
}

/* ------------------------------------------------------------------ what the logs say */

static void salvage_prepared_tell_unread(struct salvage *salvage,
                                         const struct salvage_prepared *item, size_t at)
{
    salvage_tell(salvage,
                 "the changes of the prepared transaction \"%s\" cannot be read from byte %zu of "
                 "%zu on, or are of a collection of which nothing is known; that part of it is "
                 "lost",
                 item->name, at, item->size);
}

static int salvage_prepared_is(const struct salvage_prepared *item,
                               const struct prepared_logged *logged)
{
    return item->state == OMENDB_PREPARED_WAITING && item->size == logged->size &&
           (item->size == 0 || memcmp(item->changes, logged->changes, item->size) == 0);
}

/* Automatic ids go on behind those of its puts, whatever becomes of it. */
static void salvage_prepared_pass_ids(const struct salvage *salvage,
                                      const struct prepared_logged *logged)
{
    struct salvage_collection *collection;
    struct commit_logged change;
    for (size_t at = 0, used = 0; at < logged->size; at += used) {
        if (salvage_decode_records(salvage, logged->changes + at, logged->size - at, &change,
                                   &collection, &used) != OMENDB_OK)
            return;
        if (collection->target == NULL || change.kind == CHANGE_DELETE ||
            change.kind == CHANGE_UPDATE)
            continue;
        uint64_t id, next = atomic_load(&collection->target->next_id);
        for (uint32_t i = 0; i < change.count; i++) {
            memcpy(&id, change.body + i * sizeof id, sizeof id);
            next = id >= next && id != OMENDB_ID_AUTO ? id + 1 : next;
        }
        atomic_store(&collection->target->next_id, next);
    }
}

static int salvage_note_waiting(struct salvage *salvage, uint64_t log,
                                const struct prepared_logged *logged)
{
    struct salvage_prepared *item = salvage_prepared_find(salvage, logged->name);
    if (item != NULL && salvage_prepared_is(item, logged))
        return OMENDB_OK;
    if (item != NULL && item->state == OMENDB_PREPARED_WAITING)
        salvage_tell(salvage,
                     "wal-%llu: a second transaction is prepared as \"%s\": what became of the "
                     "first one is lost, and so are its changes",
                     (unsigned long long)log, logged->name);
    salvage_prepared_pass_ids(salvage, logged);
    uint8_t *changes = memory_alloc(&salvage->memory, logged->size);
    if (changes == NULL)
        return OMENDB_NOMEM;
    int code = salvage_prepared_add(salvage, logged->name, &item);
    if (code != OMENDB_OK) {
        memory_free(&salvage->memory, changes, logged->size);
        return code;
    }
    if (logged->size != 0)
        memcpy(changes, logged->changes, logged->size);
    salvage_prepared_forget_changes(salvage, item);
    item->changes = changes;
    item->size = logged->size;
    item->state = OMENDB_PREPARED_WAITING;
    item->commit = salvage->sequence;
    return OMENDB_OK;
}

static int salvage_prepared_apply(struct salvage *salvage, uint64_t log,
                                  const struct salvage_prepared *item)
{
    int code = OMENDB_OK;
    size_t at = 0;
    while (at < item->size && code == OMENDB_OK) {
        struct salvage_collection *collection;
        struct commit_logged change;
        size_t used = 0;
        code = salvage_decode_records(salvage, item->changes + at, item->size - at, &change,
                                      &collection, &used);
        if (code == OMENDB_OK)
            code = salvage_apply_records(salvage, log, &change, collection);
        at += code == OMENDB_OK ? used : 0;
    }
    if (code != OMENDB_CORRUPT)
        return code;
    salvage_prepared_tell_unread(salvage, item, at);
    return OMENDB_OK;
}

static int salvage_note_outcome(struct salvage *salvage, uint64_t log,
                                const struct prepared_logged *logged)
{
    struct salvage_prepared *item = salvage_prepared_find(salvage, logged->name);
    const int waits = item != NULL && item->state == OMENDB_PREPARED_WAITING;
    int code = OMENDB_OK;
    if (logged->state == OMENDB_PREPARED_COMMITTED && waits)
        code = salvage_prepared_apply(salvage, log, item);
    else if (logged->state == OMENDB_PREPARED_COMMITTED && logged->kind == CHANGE_SETTLE)
        salvage_tell(salvage,
                     "wal-%llu: the prepared transaction \"%s\" was committed, but its changes are "
                     "lost",
                     (unsigned long long)log, logged->name);
    if (code == OMENDB_OK)
        code = salvage_prepared_add(salvage, logged->name, &item);
    if (code != OMENDB_OK)
        return code;
    salvage_prepared_forget_changes(salvage, item);
    item->state = logged->state;
    return OMENDB_OK;
}

OMENDB_INTERNAL int salvage_note_prepared(struct salvage *salvage, uint64_t log,
                                          const struct prepared_logged *logged)
{
    if (logged->kind == CHANGE_PREPARE)
        return salvage_note_waiting(salvage, log, logged);
    if (logged->state != PREPARED_FORGOTTEN)
        return salvage_note_outcome(salvage, log, logged);
    struct salvage_prepared *item = salvage_prepared_find(salvage, logged->name);
    if (item == NULL)
        return OMENDB_OK;
    if (item->state == OMENDB_PREPARED_WAITING)
        salvage_tell(salvage,
                     "wal-%llu: the prepared transaction \"%s\" is forgotten, but what became of "
                     "it is lost, and so are its changes",
                     (unsigned long long)log, logged->name);
    salvage_prepared_remove(salvage, item);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ into the new database */

/* Whether one that is prepared already holds a record of the change. */
static int salvage_is_held(omendb *db, const struct commit_logged *logged,
                           const struct collection *target)
{
    int held = 0;
    platform_mutex_lock(&db->commit_mutex);
    for (uint32_t i = 0; i < logged->count && !held; i++)
        held = prepared_holder(db, target->id, format_get64(logged->body + i * sizeof(uint64_t))) !=
               NULL;
    platform_mutex_unlock(&db->commit_mutex);
    return held;
}

static int salvage_prepare_records(omendb_txn *txn, struct collection *target, uint32_t kind,
                                   const struct records_given *given)
{
    struct records records;
    int code = records_prepare(target, kind, given, &records);
    records.change.skip_missing = 1;
    if (code == OMENDB_OK && records.change.automatic)
        code = OMENDB_INVALID;
    if (code == OMENDB_OK)
        code = records_commit(&records, txn);
    records_destroy(&records);
    return code == OMENDB_INVALID ? OMENDB_CORRUPT : code;
}

/* Records [at, at + count) of the change, whose documents are told one by one. */
static int salvage_prepare_run(omendb_txn *txn, const struct change *change,
                               struct collection *target, uint32_t at, uint32_t count,
                               const uint8_t **documents)
{
    const uint32_t kind = change->kind == CHANGE_ADD ? CHANGE_PUT : change->kind;
    const struct records_given given = {
        .count = count,
        .ids = change->ids + at,
        .vectors = kind != CHANGE_PUT ? NULL : change->vectors + at * target->vector_bytes,
        .type = target->schema.scalar,
        .documents = documents};
    return salvage_prepare_records(txn, target, kind, &given);
}

/* Whether the record was saved with the key that the document has, so that it can be updated.
 * *vector: else its own, which lives as long as the version; NULL: it can, or is lost. */
static int salvage_vector_without_key(const struct version *version, uint64_t commit, uint64_t id,
                                      const uint8_t *document, const uint8_t **vector)
{
    struct location location;
    const uint8_t *saved = NULL;
    uint32_t size, saved_size;
    *vector = NULL;
    int code = version_locate(version, id, commit, &location);
    if (code != OMENDB_OK || (location.memtable == NULL && location.segment == NULL))
        return code;
    code = location_document(&location, commit, &saved);
    const uint8_t *key = document_key(document, &size);
    const uint8_t *saved_key = document_key(saved, &saved_size);
    if (code != OMENDB_OK ||
        (size == saved_size && (size == 0 || memcmp(key, saved_key, size) == 0)))
        return code;
    return location_vector(&location, vector);
}

/* No update changes a key. So that of a record that was saved without its own, or in an older
 * version with another one, becomes a put of the saved vector. */
static int salvage_prepare_update(struct salvage *salvage, const char *name, omendb_txn *txn,
                                  struct collection *target, uint64_t id, const uint8_t *document)
{
    const uint8_t *vector;
    uint64_t commit;
    struct version *version = version_acquire_newest(target, &commit);
    int code = salvage_vector_without_key(version, commit, id, document, &vector);
    const struct records_given given = {.count = 1,
                                        .ids = &id,
                                        .vectors = vector,
                                        .type = target->schema.scalar,
                                        .documents = &document};
    if (code == OMENDB_OK)
        code = salvage_prepare_records(txn, target, vector == NULL ? CHANGE_UPDATE : CHANGE_PUT,
                                       &given);
    version_release(version);
    if (code != OMENDB_CONFLICT)
        return code;
    salvage_tell(salvage,
                 "the update of record %llu of collection \"%s\" by the prepared transaction "
                 "\"%s\" is lost: %s",
                 (unsigned long long)id, target->name, name, error_text());
    return OMENDB_OK;
}

/* Deletes and updates of records that are lost are left out: nothing stands in for them.
 * OMENDB_DONE: one that was prepared later holds a record of it. */
static int salvage_prepare_change(struct salvage *salvage, const char *name, omendb_txn *txn,
                                  const struct commit_logged *logged, struct collection *target)
{
    const uint8_t *documents[SALVAGE_RUN_ROWS];
    struct change change = {0};
    int code = salvage_is_held(target->db, logged, target) ? OMENDB_DONE : OMENDB_OK;
    if (code == OMENDB_OK && !commit_decode_body(logged, target->vector_bytes, &change))
        code = OMENDB_CORRUPT;
    const uint8_t *document = change.documents;
    for (uint32_t at = 0, run; at < change.count && code == OMENDB_OK; at += run) {
        run = change.kind == CHANGE_UPDATE ? 1 : SALVAGE_RUN_ROWS;
        run = change.count - at < run ? change.count - at : run;
        for (uint32_t i = 0; i < run; i++)
            documents[i] = change_next_document(&change, at + i, &document);
        code = change.kind == CHANGE_UPDATE
                   ? salvage_prepare_update(salvage, name, txn, target, change.ids[at], *documents)
                   : salvage_prepare_run(txn, &change, target, at, run, documents);
    }
    return code;
}

static int salvage_prepare_changes(struct salvage *salvage, const struct salvage_prepared *item,
                                   omendb_txn *txn)
{
    int code = OMENDB_OK;
    size_t at = 0;
    while (at < item->size && code == OMENDB_OK) {
        struct salvage_collection *collection;
        struct commit_logged change;
        size_t used = 0;
        code = salvage_decode_records(salvage, item->changes + at, item->size - at, &change,
                                      &collection, &used);
        if (code == OMENDB_OK && collection->target != NULL)
            code = salvage_prepare_change(salvage, item->name, txn, &change, collection->target);
        at += code == OMENDB_OK ? used : 0;
    }
    if (code != OMENDB_CORRUPT)
        return code;
    salvage_prepared_tell_unread(salvage, item, at);
    return OMENDB_OK;
}

static int salvage_prepare(struct salvage *salvage, const struct salvage_prepared *item)
{
    omendb_txn *txn = NULL;
    if (item->state != OMENDB_PREPARED_WAITING)
        return prepared_remember(salvage->db, item->name, item->state);
    int code = txn_begin(salvage->db, OMENDB_READ_WRITE, &txn);
    if (code != OMENDB_OK)
        return code;
    code = salvage_prepare_changes(salvage, item, txn);
    if (code == OMENDB_OK)
        code = txn_commit(txn, item->name);
    txn_end(txn);
    database_child_done(salvage->db);
    return code;
}

/* The last one first. */
static int salvage_prepared_compare(const void *left, const void *right)
{
    const struct salvage_prepared *const *a = left, *const *b = right;
    return ((*a)->commit < (*b)->commit) - ((*a)->commit > (*b)->commit);
}

/* One that the new database cannot take is told, and does not keep the others out. */
static int salvage_prepare_or_tell(struct salvage *salvage, const struct salvage_prepared *item)
{
    struct work_wait wait = {0};
    int code;
    do {
        code = salvage_prepare(salvage, item);
    } while (code == OMENDB_NOMEM && work_relieve(salvage->db, &wait));
    if (code == OMENDB_DONE)
        salvage_tell(salvage,
                     "the prepared transaction \"%s\" changes a record that one prepared later "
                     "changes, too: what became of it is lost, and so are its changes",
                     item->name);
    else if (code == OMENDB_TOOBIG || (code == OMENDB_NOMEM && salvage->db->memory.limit != 0))
        salvage_tell(salvage,
                     "the prepared transaction \"%s\" is lost, as memory_limit leaves it no room: "
                     "%s",
                     item->name, error_text());
    else if (code == OMENDB_CONFLICT || code == OMENDB_BUSY || code == OMENDB_CORRUPT)
        salvage_tell(salvage,
                     "the prepared transaction \"%s\" is lost, as it does not fit what is "
                     "saved: %s",
                     item->name, error_text());
    else
        return code;
    return OMENDB_OK;
}

OMENDB_INTERNAL int salvage_prepare_all(struct salvage *salvage)
{
    int code = OMENDB_OK;
    if (salvage->prepared_count > 1)
        sort_array((void *)salvage->prepared, salvage->prepared_count,
                   sizeof(struct salvage_prepared *), salvage_prepared_compare);
    for (size_t i = 0; i < salvage->prepared_count && code == OMENDB_OK; i++) {
        code = salvage_prepare_or_tell(salvage, salvage->prepared[i]);
        salvage_prepared_forget_changes(salvage, salvage->prepared[i]);
    }
    return code;
}

#undef SALVAGE_RUN_ROWS
