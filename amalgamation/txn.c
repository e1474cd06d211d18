/* txn.c: transactions. A read-only one is a commit number in a list, which keeps merges from
 * dropping what it may see. A writing one gathers its changes in memory, by record, and hands them
 * to commit_changes at the end; reads look there first.
 *
 * The list is in the order of beginning, so its head has the smallest snapshot: numbers are taken
 * under the same mutex. */
#include "database.h"

#include <string.h>

OMENDB_INTERNAL int txn_begin(omendb *db, int mode, omendb_txn **txn)
{
    *txn = NULL;
    if (mode == OMENDB_READ_WRITE) {
        int code = commit_check_writable(db);
        if (code != OMENDB_OK)
            return code;
    }
    omendb_txn *made = memory_zalloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->magic = TXN_MAGIC;
    made->db = db;
    made->mode = mode;
    platform_mutex_lock(&db->txn_mutex);
    made->snapshot = atomic_load(&db->visible_commit);
    if (db->transactions == NULL) {
        made->next = made->previous = made;
        db->transactions = made;
    } else {
        made->previous = db->transactions->previous;
        made->next = db->transactions;
        made->previous->next = made;
        made->next->previous = made;
    }
    db->open_transactions++;
    platform_mutex_unlock(&db->txn_mutex);
    atomic_fetch_add(&db->children, 1);
    *txn = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL uint64_t txn_oldest(omendb *db)
{
    platform_mutex_lock(&db->txn_mutex);
    uint64_t oldest =
        db->transactions != NULL ? db->transactions->snapshot : atomic_load(&db->visible_commit);
    platform_mutex_unlock(&db->txn_mutex);
    return oldest;
}

OMENDB_INTERNAL void txn_end(omendb_txn *txn)
{
    if (txn == NULL)
        return;
    omendb *db = txn->db;
    platform_mutex_lock(&db->txn_mutex);
    if (txn->next == txn) {
        db->transactions = NULL;
    } else {
        txn->next->previous = txn->previous;
        txn->previous->next = txn->next;
        if (db->transactions == txn)
            db->transactions = txn->next;
    }
    db->open_transactions--;
    platform_mutex_unlock(&db->txn_mutex);
    for (struct txn_cursor *cursor = txn->cursors; cursor != NULL; cursor = cursor->next)
        cursor->ended = 1;
    for (size_t i = 0; i < txn->write_count; i++) {
        memory_free(&db->memory, txn->writes[i].vector,
                    txn->writes[i].vector == NULL ? 0 : txn->writes[i].collection->vector_bytes);
        collection_release(txn->writes[i].collection);
    }
    memory_free(&db->memory, txn->writes, txn->write_capacity * sizeof *txn->writes);
    memory_free(&db->memory, txn->table, txn->table_slots * sizeof *txn->table);
    txn->magic = 0;
    memory_free(&db->memory, txn, sizeof *txn);
}

/* ------------------------------------------------------------------ the table of changes */

/* Slot of the record, or the empty one where it belongs. */
static size_t txn_slot(const omendb_txn *txn, const struct collection *collection, uint64_t id)
{
    size_t at = (size_t)idmap_mix(id ^ idmap_mix(collection->id)) & (txn->table_slots - 1);
    while (txn->table[at] != 0) {
        const struct txn_write *write = &txn->writes[txn->table[at] - 1];
        if (write->collection == collection && write->id == id)
            break;
        at = (at + 1) & (txn->table_slots - 1);
    }
    return at;
}

OMENDB_INTERNAL void txn_add_cursor(omendb_txn *txn, struct txn_cursor *cursor)
{
    cursor->next = txn->cursors;
    txn->cursors = cursor;
}

OMENDB_INTERNAL void txn_remove_cursor(omendb_txn *txn, struct txn_cursor *cursor)
{
    struct txn_cursor **link = &txn->cursors;
    while (*link != cursor)
        link = &(*link)->next;
    *link = cursor->next;
}

OMENDB_INTERNAL const struct txn_write *txn_find(const omendb_txn *txn,
                                                 const struct collection *collection, uint64_t id)
{
    if (txn == NULL || txn->write_count == 0)
        return NULL;
    uint32_t index = txn->table[txn_slot(txn, collection, id)];
    return index == 0 ? NULL : &txn->writes[index - 1];
}

static int txn_reserve(omendb_txn *txn, size_t more)
{
    struct memory *memory = &txn->db->memory;
    size_t needed = txn->write_count + more;
    if (needed > UINT32_MAX / 4)
        return error_set(OMENDB_TOOBIG, "a transaction of %zu changes; at most %u", needed,
                         UINT32_MAX / 4);
    if (needed > txn->write_capacity) {
        size_t capacity = needed + txn->write_capacity;
        struct txn_write *writes =
            memory_resize(memory, txn->writes, txn->write_capacity * sizeof *writes,
                          memory_multiply(capacity, sizeof *writes));
        if (writes == NULL)
            return OMENDB_NOMEM;
        txn->writes = writes;
        txn->write_capacity = capacity;
    }
    size_t slots = txn->table_slots == 0 ? 64 : txn->table_slots;
    while (slots < needed * 2)
        slots *= 2;
    if (slots == txn->table_slots)
        return OMENDB_OK;
    uint32_t *table = memory_zalloc(memory, slots * sizeof *table);
    if (table == NULL)
        return OMENDB_NOMEM;
    memory_free(memory, txn->table, txn->table_slots * sizeof *table);
    txn->table = table;
    txn->table_slots = slots;
    for (size_t i = 0; i < txn->write_count; i++)
        table[txn_slot(txn, txn->writes[i].collection, txn->writes[i].id)] = (uint32_t)i + 1;
    return OMENDB_OK;
}

/* Whether the transaction sees the record now, and whether it was there at the snapshot. */
static int txn_sees(omendb_txn *txn, const struct version *version, struct collection *collection,
                    uint64_t id, int *now, int *then)
{
    struct location location;
    const struct txn_write *own = txn_find(txn, collection, id);
    int code = version_locate(version, id, txn->snapshot, &location);
    *then = location.memtable != NULL || location.segment != NULL;
    *now = own == NULL ? *then : own->vector != NULL;
    return code;
}

/* Copies all vectors first, so that a failure leaves the transaction as it was. */
static int txn_copy_vectors(omendb_txn *txn, const struct change *change, uint8_t **copies)
{
    size_t bytes = change->collection->vector_bytes;
    for (uint32_t i = 0; i < change->count; i++) {
        copies[i] = memory_alloc(&txn->db->memory, bytes);
        if (copies[i] == NULL) {
            while (i-- > 0)
                memory_free(&txn->db->memory, copies[i], bytes);
            return OMENDB_NOMEM;
        }
        memcpy(copies[i], change->vectors + i * bytes, bytes);
    }
    return OMENDB_OK;
}

static void txn_set(omendb_txn *txn, struct collection *collection, uint64_t id, uint8_t *vector,
                    int existed)
{
    size_t slot = txn_slot(txn, collection, id);
    if (txn->table[slot] == 0) {
        txn->writes[txn->write_count] =
            (struct txn_write){collection_reference(collection), id, NULL, !existed};
        txn->table[slot] = (uint32_t)++txn->write_count;
    }
    struct txn_write *write = &txn->writes[txn->table[slot] - 1];
    memory_free(&txn->db->memory, write->vector,
                write->vector == NULL ? 0 : collection->vector_bytes);
    write->vector = vector;
}

/* Checks every id as the transaction sees it; leaves absent ones out of a delete. */
static int txn_check(omendb_txn *txn, const struct version *version, struct change *change,
                     uint8_t *existed)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < change->count; i++) {
        int now, then,
            code = txn_sees(txn, version, change->collection, change->ids[i], &now, &then);
        if (code != OMENDB_OK)
            return code;
        if (change->kind == CHANGE_ADD && now)
            return error_set(
                OMENDB_EXISTS,
                "row %u: id %llu is already in collection \"%s\"; use put to replace it", i,
                (unsigned long long)change->ids[i], change->collection->name);
        if (change->kind == CHANGE_DELETE && !now) {
            if (!change->skip_missing)
                return error_set(OMENDB_NOTFOUND, "id %llu is not in collection \"%s\"",
                                 (unsigned long long)change->ids[i], change->collection->name);
            continue;
        }
        change->ids[kept] = change->ids[i];
        existed[kept++] = (uint8_t)then;
    }
    change->count = change->affected = kept;
    return OMENDB_OK;
}

static int txn_assign_ids(omendb_txn *txn, struct change *change)
{
    struct collection *collection = change->collection;
    if (!change->automatic)
        return OMENDB_OK;
    platform_mutex_lock(&txn->db->commit_mutex);
    uint64_t next = atomic_load(&collection->next_id);
    int code = next > UINT64_MAX - 1 - change->count
                   ? error_set(OMENDB_FULL, "collection \"%s\": automatic ids are used up",
                               collection->name)
                   : OMENDB_OK;
    for (uint32_t i = 0; i < change->count && code == OMENDB_OK; i++)
        change->ids[i] = next + i;
    if (code == OMENDB_OK)
        atomic_store(&collection->next_id, next + change->count);
    platform_mutex_unlock(&txn->db->commit_mutex);
    return code;
}

OMENDB_INTERNAL int txn_apply(omendb_txn *txn, struct change *change)
{
    struct memory *memory = &txn->db->memory;
    size_t count = change->count;
    uint8_t **copies = memory_zalloc(memory, memory_multiply(count, sizeof *copies));
    uint8_t *existed = memory_zalloc(memory, count);
    struct version *version = version_acquire(change->collection);
    int code = copies == NULL || existed == NULL ? OMENDB_NOMEM : OMENDB_OK;
    if (code == OMENDB_OK)
        code = txn_assign_ids(txn, change);
    if (code == OMENDB_OK)
        code = txn_check(txn, version, change, existed);
    if (code == OMENDB_OK)
        code = txn_reserve(txn, change->count);
    if (code == OMENDB_OK && change->kind != CHANGE_DELETE)
        code = txn_copy_vectors(txn, change, copies);
    for (uint32_t i = 0; i < change->count && code == OMENDB_OK; i++)
        txn_set(txn, change->collection, change->ids[i], copies[i], existed[i]);
    version_release(version);
    memory_free(memory, copies, count * sizeof *copies);
    memory_free(memory, existed, count);
    return code;
}

/* ------------------------------------------------------------------ commit */

/* A record that was added and deleted again is no change, but may stand in the way of nobody
 * either. */
static int txn_is_change(const struct txn_write *write)
{
    return write->vector != NULL || !write->added;
}

/* The changes of one kind in one collection, gathered. */
static int txn_gather(omendb_txn *txn, struct collection *collection, int deletes,
                      struct change *change)
{
    struct memory *memory = &txn->db->memory;
    uint32_t count = 0;
    for (size_t i = 0; i < txn->write_count; i++)
        count += txn->writes[i].collection == collection &&
                 (txn->writes[i].vector == NULL) == deletes && txn_is_change(&txn->writes[i]);
    memset(change, 0, sizeof *change);
    change->kind = deletes ? CHANGE_DELETE : CHANGE_PUT;
    change->collection = collection;
    if (count == 0)
        return OMENDB_OK;
    uint8_t *vectors = NULL;
    change->ids = memory_array(memory, count, sizeof *change->ids);
    if (!deletes)
        vectors = memory_array(memory, count, collection->vector_bytes);
    change->vectors = vectors;
    change->count = change->affected = count;
    if (change->ids == NULL || (!deletes && vectors == NULL))
        return OMENDB_NOMEM;
    uint32_t at = 0;
    for (size_t i = 0; i < txn->write_count; i++) {
        const struct txn_write *write = &txn->writes[i];
        if (write->collection != collection || (write->vector == NULL) != deletes ||
            !txn_is_change(write))
            continue;
        change->ids[at] = write->id;
        if (!deletes)
            memcpy(vectors + at * collection->vector_bytes, write->vector,
                   collection->vector_bytes);
        at++;
    }
    return OMENDB_OK;
}

static size_t txn_collections(const omendb_txn *txn, struct collection **list)
{
    size_t count = 0;
    for (size_t i = 0; i < txn->write_count; i++) {
        size_t at = 0;
        while (at < count && list[at] != txn->writes[i].collection)
            at++;
        if (at == count)
            list[count++] = txn->writes[i].collection;
    }
    return count;
}

static int txn_commit_writes(omendb_txn *txn)
{
    struct memory *memory = &txn->db->memory;
    struct collection **list = memory_array(memory, txn->write_count, sizeof *list);
    if (list == NULL)
        return OMENDB_NOMEM;
    size_t collections = txn_collections(txn, list);
    size_t bytes = memory_multiply(collections * 2, sizeof(struct change));
    struct change *changes = memory_zalloc(memory, bytes);
    uint32_t *gathered = memory_zalloc(memory, collections * 2 * sizeof *gathered);
    int code = changes == NULL || gathered == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (size_t i = 0; i < collections * 2 && code == OMENDB_OK; i++) {
        code = txn_gather(txn, list[i / 2], i % 2 == 0, &changes[i]);
        gathered[i] = changes[i].count;
    }
    if (code == OMENDB_OK)
        code = commit_changes(txn->db, changes, collections * 2, txn->snapshot);
    for (size_t i = 0; changes != NULL && gathered != NULL && i < collections * 2; i++) {
        memory_free(memory, changes[i].ids, gathered[i] * sizeof(uint64_t));
        memory_free(memory, (void *)(uintptr_t)changes[i].vectors,
                    gathered[i] * list[i / 2]->vector_bytes);
    }
    memory_free(memory, changes, bytes);
    memory_free(memory, gathered, collections * 2 * sizeof *gathered);
    memory_free(memory, list, txn->write_count * sizeof *list);
    return code;
}

OMENDB_INTERNAL int txn_commit(omendb_txn *txn)
{
    return txn->write_count == 0 ? OMENDB_OK : txn_commit_writes(txn);
}
