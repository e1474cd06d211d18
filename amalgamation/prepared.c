/* prepared.c: transactions between the two phases of a commit that spans several databases, or a
 * database and something else (Gray, "Notes on data base operating systems", 1978, section 5.8).
 *
 * A prepared transaction is a name, its changes as they stand in the log, and a lock on each record
 * that it changes. After its outcome only the name and the outcome are kept, until they are
 * forgotten.
 *
 * Invariants, all under commit_mutex:
 * - Every record of a waiting transaction, and every key that it gives, is in the table of locks,
 * into which each commit looks first, and its collections cannot be dropped. So nothing can stand
 * in the way of its outcome.
 * - The present log, or one before it that no manifest has let go of, tells of every name: what is
 *   waiting or remembered is copied into a new log, which is synced before a manifest is published
 *   that does without the old one. Whoever replays both logs meets the copy second and passes over
 *   it.
 * - `settling` is set while a thread is at the outcome outside of the mutex; nobody else frees or
 *   settles the object then.
 *
 * The changes are kept in memory and counted there: they are needed whole at each rotation and at
 * the outcome, and a file of their own would need the same care at each crash as the log. */
#include "database.h"
#include "format.h"

#include <assert.h>
#include <string.h>

#define PREPARED_SLOTS_MIN 64

/* ------------------------------------------------------------------ the list of names */

/* Index of the name, or where it would go with *found = 0. */
static size_t prepared_position(const struct prepared_set *set, const char *name, int *found)
{
    size_t low = 0, high = set->count;
    *found = 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(set->items[middle]->name, name);
        if (order == 0) {
            *found = 1;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct prepared *prepared_find(const struct prepared_set *set, const char *name)
{
    int found;
    size_t at = prepared_position(set, name, &found);
    return found ? set->items[at] : NULL;
}

static int prepared_reserve_place(omendb *db)
{
    struct prepared_set *set = &db->prepared;
    if (set->count < set->capacity)
        return OMENDB_OK;
    size_t capacity = set->capacity * 2 + 8;
    struct prepared **items =
        memory_resize(&db->memory, set->items, set->capacity * sizeof(struct prepared *),
                      capacity * sizeof(struct prepared *));
    if (items == NULL)
        return OMENDB_NOMEM;
    set->items = items;
    set->capacity = capacity;
    return OMENDB_OK;
}

static void prepared_insert(struct prepared_set *set, struct prepared *prepared)
{
    int found;
    size_t at = prepared_position(set, prepared->name, &found);
    memmove(set->items + at + 1, set->items + at, (set->count - at) * sizeof(struct prepared *));
    set->items[at] = prepared;
    set->count++;
}

OMENDB_INTERNAL int prepared_create(omendb *db, const char *name, size_t size,
                                    struct prepared **prepared)
{
    struct prepared *made = memory_zalloc(&db->memory, sizeof *made);
    *prepared = NULL;
    if (made == NULL)
        return OMENDB_NOMEM;
    made->payload = memory_alloc(&db->memory, size);
    if (made->payload == NULL) {
        memory_free(&db->memory, made, sizeof *made);
        return OMENDB_NOMEM;
    }
    made->size = size;
    made->state = OMENDB_PREPARED_WAITING;
    memcpy(made->name, name, strlen(name) + 1);
    *prepared = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL void prepared_destroy(omendb *db, struct prepared *prepared)
{
    if (prepared == NULL)
        return;
    memory_free(&db->memory, prepared->growths, prepared->growth_count * sizeof *prepared->growths);
    memory_free(&db->memory, prepared->payload, prepared->size);
    memory_free(&db->memory, prepared, sizeof *prepared);
}

static void prepared_forget_growths(omendb *db, struct prepared *prepared)
{
    memory_free(&db->memory, prepared->growths, prepared->growth_count * sizeof *prepared->growths);
    prepared->growths = NULL;
    prepared->growth_count = 0;
}

OMENDB_INTERNAL void prepared_clear(omendb *db)
{
    struct prepared_set *set = &db->prepared;
    for (size_t i = 0; i < set->count; i++) {
        atomic_fetch_sub_explicit(&db->txn_needs, set->items[i]->needs, memory_order_relaxed);
        prepared_destroy(db, set->items[i]);
    }
    memory_free(&db->memory, set->items, set->capacity * sizeof(struct prepared *));
    memory_free(&db->memory, set->locks, set->lock_slots * sizeof *set->locks);
    memset(set, 0, sizeof *set);
}

/* ------------------------------------------------------------------ locks */

static size_t prepared_slot(const struct prepared_set *set, uint64_t collection, uint64_t id)
{
    size_t at = (size_t)idmap_mix(id ^ idmap_mix(set->seed ^ collection)) & (set->lock_slots - 1);
    while (set->locks[at].holder != NULL &&
           (set->locks[at].id != id || set->locks[at].collection != collection))
        at = (at + 1) & (set->lock_slots - 1);
    return at;
}

OMENDB_INTERNAL const struct prepared *prepared_holder(const omendb *db, uint64_t collection,
                                                       uint64_t id)
{
    const struct prepared_set *set = &db->prepared;
    return set->lock_count == 0 ? NULL : set->locks[prepared_slot(set, collection, id)].holder;
}

OMENDB_INTERNAL const struct prepared *prepared_key_holder(const omendb *db, uint64_t collection,
                                                           const uint8_t *key, uint32_t size)
{
    if (db->prepared.lock_count == 0)
        return NULL;
    return prepared_holder(db, collection | PREPARED_KEY, hash_bytes(&db->hash_seed, key, size));
}

/* 1: it was not locked before. */
static int prepared_lock(struct prepared_set *set, uint64_t collection, uint64_t id,
                         const struct prepared *holder)
{
    size_t at = prepared_slot(set, collection, id);
    int is_new = set->locks[at].holder == NULL;
    set->lock_count += (size_t)is_new;
    set->locks[at] = (struct prepared_lock){collection, id, holder};
    return is_new;
}

static int prepared_reserve_locks(omendb *db, size_t more)
{
    struct prepared_set *set = &db->prepared;
    size_t slots = set->lock_slots == 0 ? PREPARED_SLOTS_MIN : set->lock_slots;
    while (slots / 2 < set->lock_count + more)
        slots *= 2;
    if (slots == set->lock_slots)
        return OMENDB_OK;
    struct prepared_lock *locks = memory_zalloc(&db->memory, memory_multiply(slots, sizeof *locks));
    if (locks == NULL)
        return OMENDB_NOMEM;
    struct prepared_set old = *set;
    set->seed = db->hash_seed.half[0];
    set->locks = locks;
    set->lock_slots = slots;
    set->lock_count = 0;
    for (size_t i = 0; i < old.lock_slots; i++) {
        if (old.locks[i].holder != NULL)
            prepared_lock(set, old.locks[i].collection, old.locks[i].id, old.locks[i].holder);
    }
    memory_free(&db->memory, old.locks, old.lock_slots * sizeof *locks);
    return OMENDB_OK;
}

/* Empties the slot and moves what collided with it back, so that no search ends too early. */
static void prepared_unlock(struct prepared_set *set, uint64_t collection, uint64_t id)
{
    if (set->lock_count == 0)
        return; /* of a record that a damaged log locked twice */
    size_t mask = set->lock_slots - 1, hole = prepared_slot(set, collection, id);
    if (set->locks[hole].holder == NULL)
        return;
    set->locks[hole].holder = NULL;
    set->lock_count--;
    for (size_t at = (hole + 1) & mask; set->locks[at].holder != NULL; at = (at + 1) & mask) {
        struct prepared_lock moved = set->locks[at];
        set->locks[at].holder = NULL;
        set->locks[prepared_slot(set, moved.collection, moved.id)] = moved;
    }
}

/* The changes of a waiting transaction, one after the other: *at goes from 0 to its size. They were
 * decoded when it came, so a failure is a bug. */
static int prepared_next_change(omendb *db, const struct prepared *prepared, size_t *at,
                                struct change *change)
{
    size_t used;
    if (*at == prepared->size)
        return 0;
    int code = commit_decode(db, prepared->commit, prepared->payload + *at, prepared->size - *at,
                             change, &used);
    assert(code == OMENDB_OK);
    *at += used;
    return code == OMENDB_OK;
}

OMENDB_INTERNAL int prepared_refuse_locked(const struct change *change, uint64_t id,
                                           const struct prepared *holder)
{
    return error_set(OMENDB_BUSY,
                     "record %llu of collection \"%s\" is locked by the prepared transaction "
                     "\"%s\"; commit or roll it back first",
                     (unsigned long long)id, change->collection->name, holder->name);
}

OMENDB_INTERNAL int prepared_refuse_locked_key(const struct change *change, const uint8_t *key,
                                               uint32_t size, const struct prepared *holder)
{
    return error_set(OMENDB_BUSY,
                     "key \"%.*s\" of collection \"%s\" is locked by the prepared transaction "
                     "\"%s\"; commit or roll it back first",
                     (int)size, (const char *)key, change->collection->name, holder->name);
}

OMENDB_INTERNAL int prepared_check_drop(omendb *db, const struct collection *collection)
{
    const struct prepared_set *set = &db->prepared;
    for (size_t i = 0; i < set->count; i++) {
        struct change change;
        for (size_t at = 0; prepared_next_change(db, set->items[i], &at, &change);) {
            if (change.collection == collection)
                return error_set(OMENDB_BUSY,
                                 "the prepared transaction \"%s\" changes collection \"%s\"; "
                                 "commit or roll it back first",
                                 set->items[i]->name, collection->name);
        }
    }
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ steps of a commit */

/* What it will add to its collections. Its records are locked until the outcome, so that stays. The
 * changes of a collection stand side by side. */
static int prepared_measure(omendb *db, struct prepared *prepared)
{
    struct change change;
    size_t count = 0;
    int code = OMENDB_OK;
    for (size_t at = 0; prepared_next_change(db, prepared, &at, &change);)
        count++;
    if (count == 0)
        return OMENDB_OK;
    prepared->growths =
        memory_zalloc(&db->memory, memory_multiply(count, sizeof *prepared->growths));
    if (prepared->growths == NULL)
        return OMENDB_NOMEM;
    prepared->growth_count = count;
    struct quota_growth *growth = prepared->growths;
    for (size_t at = 0; code == OMENDB_OK && prepared_next_change(db, prepared, &at, &change);) {
        growth += growth->collection != 0 && growth->collection != change.collection->id;
        code = quota_measure(&change, growth);
    }
    return code;
}

OMENDB_INTERNAL int prepared_reserve(omendb *db, struct prepared *prepared)
{
    size_t records = 0;
    struct change change;
    if (prepared_find(&db->prepared, prepared->name) != NULL)
        return error_set(OMENDB_EXISTS,
                         "there is a prepared transaction \"%s\", or its outcome is remembered; "
                         "forget it, or take another name",
                         prepared->name);
    for (size_t at = 0; prepared_next_change(db, prepared, &at, &change);)
        records += (size_t)change.count + change.keys;
    int code = prepared_reserve_place(db);
    if (code == OMENDB_OK)
        code = prepared_measure(db, prepared);
    return code == OMENDB_OK ? prepared_reserve_locks(db, records) : code;
}

/* Calls prepared_lock or, without a holder, prepared_unlock for each key that the change gives. */
static void prepared_lock_keys(omendb *db, const struct change *change,
                               const struct prepared *holder)
{
    struct prepared_set *set = &db->prepared;
    const uint64_t collection = change->collection->id | PREPARED_KEY;
    const uint8_t *at = change->documents;
    for (uint32_t i = 0; i < change->count && change->keys != 0; i++) {
        uint32_t size;
        const uint8_t *key = document_key(change_next_document(change, i, &at), &size);
        if (key == NULL)
            continue;
        const uint64_t hash = hash_bytes(&db->hash_seed, key, size);
        if (holder != NULL)
            prepared_lock(set, collection, hash, holder);
        else
            prepared_unlock(set, collection, hash);
    }
}

/* Automatic ids go on behind those that it may still add. */
static void prepared_pass_ids(const struct change *change)
{
    uint64_t next = atomic_load_explicit(&change->collection->next_id, memory_order_relaxed);
    for (uint32_t i = 0; i < change->count; i++) {
        if (change->ids[i] >= next)
            next = change->ids[i] + 1;
    }
    atomic_store_explicit(&change->collection->next_id, next, memory_order_relaxed);
}

OMENDB_INTERNAL size_t prepared_hold(omendb *db, struct prepared *prepared)
{
    struct change change;
    size_t locked = 0;
    for (size_t at = 0; prepared_next_change(db, prepared, &at, &change);) {
        prepared->needs += txn_change_needs(&change);
        for (uint32_t i = 0; i < change.count; i++)
            locked += (size_t)prepared_lock(&db->prepared, change.collection->id, change.ids[i],
                                            prepared);
        prepared_lock_keys(db, &change, prepared);
        if (change.kind != CHANGE_DELETE)
            prepared_pass_ids(&change);
    }
    atomic_fetch_add_explicit(&db->txn_needs, prepared->needs, memory_order_relaxed);
    prepared_insert(&db->prepared, prepared);
    return locked;
}

/* A table that is used no more; one that is used stays as large as it was at most. */
static void prepared_free_locks(omendb *db)
{
    struct prepared_set *set = &db->prepared;
    if (set->lock_count != 0)
        return;
    memory_free(&db->memory, set->locks, set->lock_slots * sizeof *set->locks);
    set->locks = NULL;
    set->lock_slots = 0;
}

OMENDB_INTERNAL void prepared_settle(omendb *db, struct prepared *prepared, uint32_t state)
{
    struct prepared_set *set = &db->prepared;
    struct change change;
    for (size_t at = 0; prepared_next_change(db, prepared, &at, &change);) {
        for (uint32_t i = 0; i < change.count; i++)
            prepared_unlock(set, change.collection->id, change.ids[i]);
        prepared_lock_keys(db, &change, NULL);
    }
    prepared_forget_growths(db, prepared);
    prepared_free_locks(db);
    atomic_fetch_sub_explicit(&db->txn_needs, prepared->needs, memory_order_relaxed);
    prepared->needs = 0;
    memory_free(&db->memory, prepared->payload, prepared->size);
    prepared->payload = NULL;
    prepared->size = 0;
    prepared->state = state;
    prepared->settling = 0;
    if (state != PREPARED_FORGOTTEN)
        return;
    int found;
    size_t place = prepared_position(set, prepared->name, &found);
    set->count--;
    memmove(set->items + place, set->items + place + 1,
            (set->count - place) * sizeof(struct prepared *));
    prepared_destroy(db, prepared);
}

/* ------------------------------------------------------------------ in the log */

OMENDB_INTERNAL size_t prepared_pieces(const struct prepared *prepared, uint32_t kind,
                                       uint32_t state, uint8_t head[PREPARED_HEAD_MAX],
                                       struct wal_piece pieces[PREPARED_PIECES])
{
    size_t name_bytes = strlen(prepared->name), padded = (name_bytes + 7) / 8 * 8;
    uint64_t own = kind == CHANGE_PREPARE ? prepared->size : state;
    format_put32(head, kind);
    format_put32(head + 4, (uint32_t)name_bytes);
    format_put64(head + 8, own);
    memset(head + PREPARED_HEAD_BYTES, 0, padded);
    memcpy(head + PREPARED_HEAD_BYTES, prepared->name, name_bytes);
    pieces[0] = (struct wal_piece){head, PREPARED_HEAD_BYTES + padded};
    pieces[1] = (struct wal_piece){prepared->payload, prepared->size};
    return kind == CHANGE_PREPARE && prepared->size != 0 ? 2 : 1;
}

OMENDB_INTERNAL int prepared_copy_to_log(omendb *db, struct wal *wal, uint64_t copied,
                                         uint64_t *commit)
{
    const struct prepared_set *set = &db->prepared;
    int code = OMENDB_OK;
    for (size_t i = (size_t)copied; i < set->count && code == OMENDB_OK; i++) {
        uint8_t head[PREPARED_HEAD_MAX];
        struct wal_piece pieces[PREPARED_PIECES];
        const struct prepared *prepared = set->items[i];
        uint32_t kind =
            prepared->state == OMENDB_PREPARED_WAITING ? CHANGE_PREPARE : CHANGE_REMEMBER;
        size_t count = prepared_pieces(prepared, kind, prepared->state, head, pieces);
        code = wal_append(wal, *commit + 1, WAL_COMMIT, pieces, count);
        *commit += code == OMENDB_OK;
    }
    return code;
}

OMENDB_INTERNAL const char *prepared_decode(const uint8_t *payload, size_t size,
                                            struct prepared_logged *logged, size_t *used)
{
    memset(logged, 0, sizeof *logged);
    *used = 0;
    assert(size >= PREPARED_HEAD_BYTES); /* commit_decode_head has seen to it */
    const uint32_t name_bytes = format_get32(payload + 4);
    const uint64_t own = format_get64(payload + 8);
    const size_t padded = ((size_t)name_bytes + 7) / 8 * 8;
    size_t left = size - PREPARED_HEAD_BYTES;
    logged->kind = format_get32(payload);
    if (name_bytes == 0 || name_bytes > OMENDB_PREPARED_NAME_MAX || padded > left)
        return "has a name of no use";
    memcpy(logged->name, payload + PREPARED_HEAD_BYTES, name_bytes);
    if (strlen(logged->name) != name_bytes || !manifest_name_is_legal(logged->name))
        return "has a name of no use";
    *used = PREPARED_HEAD_BYTES + padded;
    left -= padded;
    if (logged->kind != CHANGE_PREPARE) {
        const uint64_t last =
            logged->kind == CHANGE_SETTLE ? PREPARED_FORGOTTEN : OMENDB_PREPARED_ROLLED_BACK;
        logged->state = (uint32_t)own;
        return own < OMENDB_PREPARED_COMMITTED || own > last ? "has an unknown outcome" : NULL;
    }
    if (own > left)
        return "is longer than its record";
    logged->state = OMENDB_PREPARED_WAITING;
    logged->changes = payload + *used;
    logged->size = (size_t)own;
    *used += logged->size;
    return NULL;
}

/* ------------------------------------------------------------------ replaying */

static int prepared_bad_record(uint64_t commit, const char *name, const char *what)
{
    return error_set(OMENDB_CORRUPT,
                     "log: commit %llu: the prepared transaction \"%s\" %s; " ERROR_RESTORE,
                     (unsigned long long)commit, name, what);
}

/* Every change is one over records of a collection that is there. */
static int prepared_check_payload(omendb *db, uint64_t commit, const uint8_t *payload, size_t size,
                                  size_t *records)
{
    int code = OMENDB_OK;
    *records = 0;
    for (size_t at = 0, used = 0; at < size && code == OMENDB_OK; at += used) {
        struct change change;
        code = commit_decode(db, commit, payload + at, size - at, &change, &used);
        *records += change.count;
        if (code == OMENDB_OK)
            code = commit_check_ids(db, commit, &change);
    }
    return code;
}

static int prepared_replay_new(omendb *db, uint64_t commit, const struct prepared_logged *logged)
{
    struct prepared *made;
    size_t records;
    int code = prepared_check_payload(db, commit, logged->changes, logged->size, &records);
    if (code == OMENDB_OK)
        code = prepared_create(db, logged->name, logged->size, &made);
    if (code != OMENDB_OK)
        return code;
    made->commit = commit;
    if (logged->size != 0)
        memcpy(made->payload, logged->changes, logged->size);
    made->state = logged->state;
    code = prepared_reserve(db, made);
    if (code != OMENDB_OK) {
        prepared_destroy(db, made);
        return code;
    }
    return prepared_hold(db, made) == records
               ? OMENDB_OK
               : prepared_bad_record(commit, logged->name,
                                     "changes a record twice, or one that another has locked");
}

/* The outcome of a transaction that waits, or that it is forgotten. */
static int prepared_replay_settle(omendb *db, uint64_t commit, const char *name, uint32_t state)
{
    struct prepared *prepared = prepared_find(&db->prepared, name);
    int code = OMENDB_OK;
    if (prepared == NULL)
        return prepared_bad_record(commit, name, "is settled but was never prepared");
    if ((prepared->state == OMENDB_PREPARED_WAITING) == (state == PREPARED_FORGOTTEN))
        return prepared_bad_record(commit, name, "is settled twice");
    if (state == OMENDB_PREPARED_COMMITTED)
        code = commit_replay_records(db, commit, prepared->payload, prepared->size);
    if (code != OMENDB_OK)
        return code;
    prepared->commit = commit;
    prepared_settle(db, prepared, state);
    return OMENDB_OK;
}

OMENDB_INTERNAL int prepared_replay(omendb *db, uint64_t commit, const uint8_t *payload,
                                    size_t size, size_t *used)
{
    struct prepared_logged logged;
    const char *wrong = prepared_decode(payload, size, &logged, used);
    if (wrong != NULL)
        return prepared_bad_record(commit, logged.name, wrong);
    if (logged.kind == CHANGE_SETTLE)
        return prepared_replay_settle(db, commit, logged.name, logged.state);
    /* A copy, made when the log was replaced, of what the log before told already. */
    if (prepared_find(&db->prepared, logged.name) != NULL)
        return OMENDB_OK;
    return prepared_replay_new(db, commit, &logged);
}

/* ------------------------------------------------------------------ the calls */

OMENDB_INTERNAL int prepared_prepare(omendb *db, const char *name, struct change *changes,
                                     size_t count, uint64_t snapshot)
{
    struct prepared *prepared;
    int code = prepared_create(db, name, commit_encoded_bytes(changes, count), &prepared);
    if (code != OMENDB_OK)
        return code;
    commit_encode(changes, count, prepared->payload);
    struct commit_order order = {changes, count, snapshot, prepared, OMENDB_PREPARED_WAITING, 0};
    int held = 0;
    code = commit_run(db, &order, &held);
    if (!held)
        prepared_destroy(db, prepared);
    return code;
}

OMENDB_INTERNAL int prepared_remember(omendb *db, const char *name, uint32_t state)
{
    struct prepared *prepared;
    int code = prepared_create(db, name, 0, &prepared), held = 0;
    if (code != OMENDB_OK)
        return code;
    prepared->state = state;
    struct commit_order order = {NULL, 0, UINT64_MAX, prepared, state, 1};
    code = commit_run(db, &order, &held);
    if (!held)
        prepared_destroy(db, prepared);
    return code;
}

/* The transaction, marked as being settled; or NULL, and what there is to say, which is true from
 * *commit on; with OMENDB_OK that the outcome was given before. commit_mutex. */
static int prepared_claim(omendb *db, const char *name, uint32_t state, struct prepared **claimed,
                          uint64_t *commit)
{
    struct prepared *prepared = prepared_find(&db->prepared, name);
    *claimed = NULL;
    *commit = db->appended_commit;
    if (prepared == NULL)
        return error_set(OMENDB_NOTFOUND, "there is no prepared transaction \"%s\"", name);
    int waits = prepared->state == OMENDB_PREPARED_WAITING;
    if (prepared->settling)
        return error_set(OMENDB_BUSY, "another thread is settling \"%s\"; try again", name);
    if (state == PREPARED_FORGOTTEN && waits)
        return error_set(OMENDB_BUSY,
                         "the prepared transaction \"%s\" waits for its outcome; commit or roll it "
                         "back first",
                         name);
    if (state != PREPARED_FORGOTTEN && !waits) {
        *commit = prepared->commit;
        return prepared->state == state
                   ? OMENDB_OK
                   : error_set(OMENDB_CONFLICT, "the prepared transaction \"%s\" was %s", name,
                               state == OMENDB_PREPARED_COMMITTED ? "rolled back" : "committed");
    }
    prepared->settling = 1;
    *claimed = prepared;
    return OMENDB_OK;
}

/* Its changes, with references to their collections. commit_mutex. */
static int prepared_take_changes(omendb *db, const struct prepared *prepared,
                                 struct change **changes, size_t *count)
{
    struct change change;
    size_t found = 0;
    for (size_t at = 0; prepared_next_change(db, prepared, &at, &change);)
        found++;
    *changes = memory_array(&db->memory, found, sizeof **changes);
    *count = 0;
    if (*changes == NULL)
        return OMENDB_NOMEM;
    for (size_t at = 0; prepared_next_change(db, prepared, &at, &change);) {
        collection_reference(change.collection);
        (*changes)[(*count)++] = change;
    }
    return OMENDB_OK;
}

static int prepared_settle_claimed(omendb *db, struct prepared *prepared, uint32_t state)
{
    struct change *changes = NULL;
    size_t count = 0;
    int code = OMENDB_OK, settled = 0;
    platform_mutex_lock(&db->commit_mutex);
    if (state == OMENDB_PREPARED_COMMITTED)
        code = prepared_take_changes(db, prepared, &changes, &count);
    platform_mutex_unlock(&db->commit_mutex);
    struct commit_order order = {changes, count, UINT64_MAX, prepared, state, 0};
    if (code == OMENDB_OK)
        code = commit_run(db, &order, &settled);
    for (size_t i = 0; i < count; i++)
        collection_release(changes[i].collection);
    memory_free(&db->memory, changes, count * sizeof *changes);
    if (!settled) {
        platform_mutex_lock(&db->commit_mutex);
        prepared->settling = 0;
        platform_mutex_unlock(&db->commit_mutex);
    }
    return code;
}

/* Before the caller is told `code`, what it tells of is durable. */
static int prepared_await(omendb *db, uint64_t commit, int code)
{
    char text[ERROR_TEXT_BYTES];
    memcpy(text, error_text(), strlen(error_text()) + 1);
    int waited = commit_await(db, commit, 1);
    return waited != OMENDB_OK || code == OMENDB_OK ? waited : error_adopt(code, text);
}

OMENDB_INTERNAL int prepared_finish(omendb *db, const char *name, uint32_t state)
{
    struct prepared *prepared;
    uint64_t commit = 0;
    int code = commit_check_writable(db);
    if (code != OMENDB_OK)
        return code;
    platform_mutex_lock(&db->commit_mutex);
    code = prepared_claim(db, name, state, &prepared, &commit);
    platform_mutex_unlock(&db->commit_mutex);
    if (prepared != NULL)
        return prepared_settle_claimed(db, prepared, state);
    if (code == OMENDB_BUSY)
        return code;
    /* Whoever made it so may still be waiting for the device. */
    return prepared_await(db, commit, code);
}

/* What it tells may be the work of a commit that is not on the device yet, which is waited for. */
OMENDB_INTERNAL int prepared_name(omendb *db, size_t index, char *name, size_t capacity, int *state)
{
    platform_mutex_lock(&db->commit_mutex);
    const struct prepared *prepared = index < db->prepared.count ? db->prepared.items[index] : NULL;
    const uint64_t told = db->prepared.last_step;
    size_t length = prepared == NULL ? 0 : strlen(prepared->name);
    char found[OMENDB_PREPARED_NAME_MAX + 1];
    uint32_t found_state = 0;
    if (prepared != NULL) {
        memcpy(found, prepared->name, length + 1);
        found_state = prepared->state;
    }
    platform_mutex_unlock(&db->commit_mutex);
    if (prepared != NULL && length >= capacity)
        return error_set(OMENDB_INVALID, "capacity is %zu; the name needs %zu bytes", capacity,
                         length + 1);
    int code = commit_await(db, told, 1);
    if (code != OMENDB_OK || prepared == NULL)
        return code != OMENDB_OK ? code : OMENDB_DONE;
    memcpy(name, found, length + 1);
    *state = (int)found_state;
    return OMENDB_OK;
}

OMENDB_INTERNAL uint64_t prepared_count_waiting(omendb *db)
{
    uint64_t waiting = 0;
    platform_mutex_lock(&db->commit_mutex);
    for (size_t i = 0; i < db->prepared.count; i++)
        waiting += db->prepared.items[i]->state == OMENDB_PREPARED_WAITING;
    platform_mutex_unlock(&db->commit_mutex);
    return waiting;
}

#undef PREPARED_SLOTS_MIN
