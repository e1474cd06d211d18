/* txn.c: transactions. A read-only one is a commit number in a list, which keeps merges from
 * dropping what it may see. A writing one gathers its changes in memory, by record, and hands them
 * to commit_changes at the end; reads look there first.
 *
 * What the oldest one kept is free to go when it ends, which the background is then told.
 *
 * The list is in the order of beginning, so its head has the smallest snapshot: numbers are taken
 * under the same mutex. */
#include "database.h"

#include <string.h>

/* Open transactions may need one part in so many of what memory_limit leaves to writers. */
#define TXN_SHARE 2
/* Of the reserve for checkpoints those that are open keep at most one part in so many. */
#define TXN_RESERVE_SHARE 64
/* Of a change: places in the table, in the order of commit, in the log's list and of the memtable's
 * row beside its vector, code and links. */
#define TXN_CHANGE_BYTES 160
/* Of a key: places in the table here and in the memtable's. */
#define TXN_KEY_BYTES 48

/* It may lie in the reserve, as it is made while writers fill the rest; but it stays for as long as
 * it is open, and thousands of snapshots must leave checkpoints what they need. */
static omendb_txn *txn_allocate(omendb *db)
{
    uint64_t oldest, begun, open = txn_count(db, &oldest, &begun);
    int few = (open + 1) * sizeof(omendb_txn) <= db->memory.reserve / TXN_RESERVE_SHARE;
    if (few)
        memory_begin_reading();
    omendb_txn *made = memory_zalloc(&db->memory, sizeof *made);
    if (few)
        memory_end_reading();
    return made;
}

OMENDB_INTERNAL int txn_begin(omendb *db, int mode, omendb_txn **txn)
{
    *txn = NULL;
    if (mode == OMENDB_READ_WRITE) {
        int code = commit_check_writable(db);
        if (code != OMENDB_OK)
            return code;
    }
    omendb_txn *made = txn_allocate(db);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->magic = TXN_MAGIC;
    made->db = db;
    made->mode = mode;
    made->begun_us = db->storage.vfs->now_us(db->storage.vfs->context);
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

OMENDB_INTERNAL int txn_reads_between(omendb *db, uint64_t first, uint64_t end)
{
    int reads = 0;
    platform_mutex_lock(&db->txn_mutex);
    const struct omendb_txn *txn = db->transactions;
    for (uint64_t left = db->open_transactions; left > 0 && !reads; left--, txn = txn->next) {
        if (txn->snapshot >= end)
            break;
        reads = txn->snapshot >= first;
    }
    platform_mutex_unlock(&db->txn_mutex);
    return reads;
}

OMENDB_INTERNAL uint64_t txn_count(omendb *db, uint64_t *oldest, uint64_t *begun_us)
{
    platform_mutex_lock(&db->txn_mutex);
    uint64_t open = db->open_transactions;
    *oldest = open == 0 ? 0 : db->transactions->snapshot;
    *begun_us = open == 0 ? 0 : db->transactions->begun_us;
    platform_mutex_unlock(&db->txn_mutex);
    return open;
}

static void txn_drop_content(omendb *db, const struct collection *collection, uint8_t *vector,
                             uint8_t *document)
{
    memory_free(&db->memory, vector, vector == NULL ? 0 : collection->vector_bytes);
    memory_free(&db->memory, document, document_size(document));
}

OMENDB_INTERNAL void txn_end(omendb_txn *txn)
{
    if (txn == NULL)
        return;
    omendb *db = txn->db;
    platform_mutex_lock(&db->txn_mutex);
    int released = db->transactions == txn && txn->snapshot < atomic_load(&db->space_pinned);
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
        txn_drop_content(db, txn->writes[i].collection, txn->writes[i].vector,
                         txn->writes[i].document);
        collection_release(txn->writes[i].collection);
    }
    memory_free(&db->memory, txn->keys, txn->key_slots * sizeof *txn->keys);
    memory_free(&db->memory, txn->writes, txn->write_capacity * sizeof *txn->writes);
    memory_free(&db->memory, txn->table, txn->table_slots * sizeof *txn->table);
    atomic_fetch_sub_explicit(&db->txn_needs, txn->needs, memory_order_relaxed);
    txn->magic = 0;
    memory_free(&db->memory, txn, sizeof *txn);
    if (released)
        work_notice_space(db);
}

/* ------------------------------------------------------------------ the table of changes */

/* Slot of the record, or the empty one where it belongs. */
static size_t txn_slot(const omendb_txn *txn, const struct collection *collection, uint64_t id)
{
    const uint64_t seed = txn->db->hash_seed.half[0] ^ collection->id;
    size_t at = (size_t)idmap_mix(id ^ idmap_mix(seed)) & (txn->table_slots - 1);
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

/* ------------------------------------------------------------------ the table of keys */

/* Slot of the key, or the empty one where it belongs. */
static size_t txn_key_slot(const omendb_txn *txn, const struct collection *collection,
                           const uint8_t *key, uint32_t size)
{
    size_t at =
        (size_t)idmap_mix(hash_bytes(&txn->db->hash_seed, key, size) ^ idmap_mix(collection->id)) &
        (txn->key_slots - 1);
    while (txn->keys[at] != 0) {
        uint32_t stored_size;
        const struct txn_write *write = &txn->writes[txn->keys[at] - 1];
        const uint8_t *stored = document_key(write->document, &stored_size);
        if (write->collection == collection && stored_size == size &&
            memcmp(stored, key, size) == 0)
            break;
        at = (at + 1) & (txn->key_slots - 1);
    }
    return at;
}

/* There is room. */
static void txn_enter_key(omendb_txn *txn, size_t index)
{
    uint32_t size;
    const struct txn_write *write = &txn->writes[index];
    const uint8_t *key = document_key(write->document, &size);
    if (key == NULL)
        return;
    size_t at = txn_key_slot(txn, write->collection, key, size);
    txn->key_entries += txn->keys[at] == 0;
    txn->keys[at] = (uint32_t)index + 1;
}

static int txn_reserve_keys(omendb_txn *txn, size_t more)
{
    struct memory *memory = &txn->db->memory;
    size_t slots = txn->key_slots == 0 ? 64 : txn->key_slots;
    while (slots / 2 < txn->key_entries + more)
        slots *= 2;
    if (more == 0 || slots == txn->key_slots)
        return OMENDB_OK;
    uint32_t *keys = memory_zalloc(memory, memory_multiply(slots, sizeof *keys));
    if (keys == NULL)
        return OMENDB_NOMEM;
    memory_free(memory, txn->keys, txn->key_slots * sizeof *keys);
    txn->keys = keys;
    txn->key_slots = slots;
    txn->key_entries = 0;
    for (size_t i = 0; i < txn->write_count; i++)
        txn_enter_key(txn, i);
    return OMENDB_OK;
}

OMENDB_INTERNAL int txn_find_key(const omendb_txn *txn, const struct version *version,
                                 const struct collection *collection, uint64_t commit,
                                 const uint8_t *key, uint32_t size, uint64_t *id)
{
    struct location location;
    *id = OMENDB_ID_AUTO;
    if (txn != NULL && txn->key_slots != 0) {
        uint32_t index = txn->keys[txn_key_slot(txn, collection, key, size)];
        if (index != 0) {
            *id = txn->writes[index - 1].id;
            return OMENDB_OK;
        }
    }
    int code = version_locate_key(version, key, size, commit, &location);
    if (code == OMENDB_OK && (location.memtable != NULL || location.segment != NULL))
        code = location_id(&location, id);
    /* One that the transaction changed has that key no more. */
    if (code == OMENDB_OK && *id != OMENDB_ID_AUTO && txn_find(txn, collection, *id) != NULL)
        *id = OMENDB_ID_AUTO;
    return code;
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

OMENDB_INTERNAL uint64_t txn_change_needs(const struct change *change)
{
    const struct collection *collection = change->collection;
    uint64_t needs = sizeof(struct txn_write) + TXN_CHANGE_BYTES;
    if (change->kind == CHANGE_UPDATE)
        needs += collection->vector_bytes;
    else if (change->kind != CHANGE_DELETE)
        needs += 3 * (uint64_t)collection->vector_bytes + codes_stride(collection->schema.dim) +
                 UINT64_C(8) * collection->schema.M;
    return change->count * needs + 3 * change->document_bytes +
           change->keys * (uint64_t)TXN_KEY_BYTES;
}

/* What all open and prepared transactions together may need. On disk the rest of what is in use can
 * be written down and freed; in memory it stays. */
static uint64_t txn_share(const omendb *db)
{
    const struct memory *memory = &db->memory;
    uint64_t allowed = memory->limit - memory->reserve, used = memory_used_firmly(memory);
    uint64_t share = allowed / TXN_SHARE, left = used < allowed ? allowed - used : 0;
    return db->in_memory && left < share ? left : share;
}

/* Counts what the commit of these changes will need; refused while the transaction can still be
 * committed as it was. A record that is changed twice counts twice. */
static int txn_claim_share(omendb_txn *txn, const struct change *change)
{
    omendb *db = txn->db;
    uint64_t needs = txn_change_needs(change), share = txn_share(db),
             claimed = atomic_load_explicit(&db->txn_needs, memory_order_relaxed);
    do {
        if (db->memory.limit != 0 && (claimed > share || needs > share - claimed))
            return error_set(
                OMENDB_TOOBIG,
                "to commit, this transaction would need %llu bytes more, and open and "
                "prepared ones need %llu already; of memory_limit they may take %llu: commit in "
                "parts",
                (unsigned long long)needs, (unsigned long long)claimed, (unsigned long long)share);
    } while (!atomic_compare_exchange_weak_explicit(&db->txn_needs, &claimed, claimed + needs,
                                                    memory_order_relaxed, memory_order_relaxed));
    txn->needs += needs;
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

/* What a change brings to one record, on its way into the transaction. */
struct txn_copy {
    uint8_t *vector, *document;
    int existed; /* at the snapshot */
};

static void txn_drop_copies(omendb_txn *txn, const struct change *change, struct txn_copy *copies,
                            size_t count)
{
    while (count-- > 0)
        txn_drop_content(txn->db, change->collection, copies[count].vector, copies[count].document);
}

/* The vector that the change gives record `index`, or that it has. */
static int txn_vector(omendb_txn *txn, const struct version *version, const struct change *change,
                      uint32_t index, const uint8_t **vector)
{
    struct location location;
    const struct txn_write *own = txn_find(txn, change->collection, change->ids[index]);
    *vector = own == NULL ? NULL : own->vector;
    if (change->kind != CHANGE_UPDATE)
        *vector = change->vectors + index * change->collection->vector_bytes;
    if (*vector != NULL)
        return OMENDB_OK;
    int code = version_locate(version, change->ids[index], txn->snapshot, &location);
    return code == OMENDB_OK ? location_vector(&location, vector) : code;
}

static int txn_copy_one(omendb_txn *txn, const struct change *change, const uint8_t *vector,
                        const uint8_t *document, struct txn_copy *copy)
{
    struct memory *memory = &txn->db->memory;
    const size_t bytes = change->collection->vector_bytes;
    copy->vector = memory_alloc(memory, bytes);
    if (copy->vector != NULL && document != NULL)
        copy->document = memory_alloc(memory, document_size(document));
    if (copy->vector == NULL || (document != NULL && copy->document == NULL)) {
        memory_free(memory, copy->vector, copy->vector == NULL ? 0 : bytes);
        return OMENDB_NOMEM;
    }
    memcpy(copy->vector, vector, bytes);
    if (document != NULL)
        memcpy(copy->document, document, document_size(document));
    return OMENDB_OK;
}

/* Copies all first, so that a failure leaves the transaction as it was. */
static int txn_copy(omendb_txn *txn, const struct version *version, const struct change *change,
                    struct txn_copy *copies)
{
    const uint8_t *at = change->documents, *vector;
    for (uint32_t i = 0; i < change->count; i++) {
        const uint8_t *document = change_next_document(change, i, &at);
        int code = txn_vector(txn, version, change, i, &vector);
        if (code == OMENDB_OK)
            code = txn_copy_one(txn, change, vector, document, &copies[i]);
        if (code != OMENDB_OK) {
            txn_drop_copies(txn, change, copies, i);
            return code;
        }
    }
    return OMENDB_OK;
}

static void txn_set(omendb_txn *txn, const struct change *change, uint64_t id,
                    const struct txn_copy *copy)
{
    struct collection *collection = change->collection;
    size_t slot = txn_slot(txn, collection, id);
    if (txn->table[slot] == 0) {
        txn->writes[txn->write_count] =
            (struct txn_write){collection_reference(collection), id, NULL, NULL, !copy->existed, 1};
        txn->table[slot] = (uint32_t)++txn->write_count;
    }
    size_t index = txn->table[slot] - 1;
    struct txn_write *write = &txn->writes[index];
    txn_drop_content(txn->db, collection, write->vector, write->document);
    write->vector = copy->vector;
    write->document = copy->document;
    /* Of one that the transaction itself put the new vector must not be lost. */
    write->updated &= change->kind == CHANGE_UPDATE;
    txn_enter_key(txn, index);
}

/* No other record has the key, as the transaction sees it; an update leaves it as it is. */
static int txn_check_key(omendb_txn *txn, const struct version *version,
                         const struct change *change, uint32_t index, const uint8_t *document)
{
    uint32_t size;
    uint64_t holder;
    const uint8_t *key = document_key(document, &size);
    if (key == NULL || change->kind == CHANGE_UPDATE)
        return OMENDB_OK;
    int code = txn_find_key(txn, version, change->collection, txn->snapshot, key, size, &holder);
    return code != OMENDB_OK || holder == OMENDB_ID_AUTO || holder == change->ids[index]
               ? code
               : commit_refuse_taken_key(change, index, key, size, holder);
}

/* Checks every id and key as the transaction sees it; leaves absent ones out of a delete, and of an
 * update of one record. */
static int txn_check(omendb_txn *txn, const struct version *version, struct change *change,
                     struct txn_copy *copies)
{
    const uint8_t *at = change->documents;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < change->count; i++) {
        const uint8_t *document = change_next_document(change, i, &at);
        int now, then,
            code = txn_sees(txn, version, change->collection, change->ids[i], &now, &then);
        if (code == OMENDB_OK)
            code = txn_check_key(txn, version, change, i, document);
        if (code != OMENDB_OK)
            return code;
        if (change->kind == CHANGE_ADD && now)
            return commit_refuse_taken_id(change, i);
        if ((change->kind == CHANGE_DELETE || change->kind == CHANGE_UPDATE) && !now) {
            if (!change->skip_missing)
                return error_set_missing(change->collection->name, change->ids[i]);
            continue;
        }
        change->ids[kept] = change->ids[i];
        copies[kept++].existed = then;
    }
    change->count = change->affected = kept;
    return OMENDB_OK;
}

/* A put by key alone is one of the record that has the key. *fresh: how many have none. */
static int txn_take_ids_of_keys(omendb_txn *txn, const struct version *version,
                                struct change *change, uint32_t *fresh)
{
    const uint8_t *at = change->documents;
    int code = OMENDB_OK;
    *fresh = 0;
    for (uint32_t i = 0; i < change->count && code == OMENDB_OK; i++) {
        uint32_t size;
        const uint8_t *key = document_key(change_next_document(change, i, &at), &size);
        change->ids[i] = OMENDB_ID_AUTO;
        if (key != NULL && change->kind == CHANGE_PUT)
            code = txn_find_key(txn, version, change->collection, txn->snapshot, key, size,
                                &change->ids[i]);
        *fresh += change->ids[i] == OMENDB_ID_AUTO;
    }
    return code;
}

static int txn_assign_ids(omendb_txn *txn, const struct version *version, struct change *change)
{
    struct collection *collection = change->collection;
    uint32_t fresh;
    if (!change->automatic)
        return OMENDB_OK;
    int code = txn_take_ids_of_keys(txn, version, change, &fresh);
    if (code != OMENDB_OK)
        return code;
    platform_mutex_lock(&txn->db->commit_mutex);
    uint64_t next = atomic_load(&collection->next_id);
    if (fresh != 0 && next > UINT64_MAX - 1 - fresh)
        code = commit_refuse_automatic_ids(collection, next);
    for (uint32_t i = 0; i < change->count && code == OMENDB_OK; i++) {
        if (change->ids[i] == OMENDB_ID_AUTO)
            change->ids[i] = next++;
    }
    if (code == OMENDB_OK)
        atomic_store(&collection->next_id, next);
    platform_mutex_unlock(&txn->db->commit_mutex);
    return code;
}

OMENDB_INTERNAL int txn_apply(omendb_txn *txn, struct change *change)
{
    struct memory *memory = &txn->db->memory;
    size_t count = change->count;
    struct txn_copy *copies = memory_zalloc(memory, memory_multiply(count, sizeof *copies));
    struct version *version = version_acquire(change->collection);
    int code = copies == NULL ? OMENDB_NOMEM : OMENDB_OK;
    if (code == OMENDB_OK)
        code = txn_assign_ids(txn, version, change);
    if (code == OMENDB_OK)
        code = txn_check(txn, version, change, copies);
    if (code == OMENDB_OK)
        code = txn_reserve(txn, change->count);
    if (code == OMENDB_OK)
        code = txn_reserve_keys(txn, change->kind == CHANGE_UPDATE ? change->count : change->keys);
    if (code == OMENDB_OK && change->kind != CHANGE_DELETE)
        code = txn_copy(txn, version, change, copies);
    if (code == OMENDB_OK) {
        code = txn_claim_share(txn, change);
        if (code != OMENDB_OK && change->kind != CHANGE_DELETE)
            txn_drop_copies(txn, change, copies, change->count);
    }
    for (uint32_t i = 0; i < change->count && code == OMENDB_OK; i++)
        txn_set(txn, change, change->ids[i], &copies[i]);
    version_release(version);
    memory_free(memory, copies, count * sizeof *copies);
    return code;
}

/* ------------------------------------------------------------------ commit */

/* A record that was added and deleted again is no change, but may stand in the way of nobody
 * either. */
static int txn_is_change(const struct txn_write *write)
{
    return write->vector != NULL || !write->added;
}

/* What a change is committed as; the order of commit in a collection. */
static uint32_t txn_kind(const struct txn_write *write)
{
    if (write->vector == NULL)
        return 0;
    return write->updated ? 1 : 2;
}

/* Order of commit: by collection, deletes before updates before puts, else as they were made. */
static int txn_compare(const void *left, const void *right)
{
    const struct txn_write *a = *(const struct txn_write *const *)left;
    const struct txn_write *b = *(const struct txn_write *const *)right;
    if (a->collection->id != b->collection->id)
        return a->collection->id < b->collection->id ? -1 : 1;
    if (txn_kind(a) != txn_kind(b))
        return txn_kind(a) < txn_kind(b) ? -1 : 1;
    return a < b ? -1 : a > b;
}

static int txn_is_same_change(const struct txn_write *a, const struct txn_write *b)
{
    return a->collection == b->collection && txn_kind(a) == txn_kind(b);
}

static int txn_gather_documents(struct memory *memory, const struct txn_write *const *writes,
                                size_t count, struct change *change)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes = memory_add(bytes, document_size(writes[i]->document));
    if (bytes == 0 && change->kind != CHANGE_UPDATE)
        return OMENDB_OK;
    uint32_t *sizes = memory_array(memory, count, sizeof *sizes);
    uint8_t *at = memory_alloc(memory, bytes);
    change->document_sizes = sizes;
    change->documents = at;
    change->document_bytes = bytes;
    if (sizes == NULL || at == NULL)
        return OMENDB_NOMEM;
    for (size_t i = 0; i < count; i++) {
        uint32_t key_size;
        sizes[i] = document_size(writes[i]->document);
        change->keys +=
            change->kind != CHANGE_UPDATE && document_key(writes[i]->document, &key_size) != NULL;
        if (sizes[i] != 0)
            memcpy(at, writes[i]->document, sizes[i]);
        at += sizes[i];
    }
    return OMENDB_OK;
}

/* `count` writes of one kind in one collection as one change over arrays of its own. */
static int txn_gather(struct memory *memory, const struct txn_write *const *writes, size_t count,
                      struct change *change)
{
    size_t bytes = writes[0]->collection->vector_bytes;
    static const uint32_t kinds[] = {CHANGE_DELETE, CHANGE_UPDATE, CHANGE_PUT};
    const uint32_t kind = kinds[txn_kind(writes[0])];
    uint8_t *vectors = kind != CHANGE_PUT ? NULL : memory_array(memory, count, bytes);
    change->kind = kind;
    change->collection = writes[0]->collection;
    change->count = (uint32_t)count;
    change->ids = memory_array(memory, count, sizeof *change->ids);
    change->vectors = vectors;
    if (change->ids == NULL || (kind == CHANGE_PUT && vectors == NULL))
        return OMENDB_NOMEM;
    for (size_t i = 0; i < count; i++) {
        change->ids[i] = writes[i]->id;
        if (kind == CHANGE_PUT)
            memcpy(vectors + i * bytes, writes[i]->vector, bytes);
    }
    return txn_gather_documents(memory, writes, count, change);
}

/* The real changes in order; returns how many. *groups: runs of one kind in one collection. */
static size_t txn_sort_writes(const omendb_txn *txn, const struct txn_write **sorted,
                              size_t *groups)
{
    size_t count = 0;
    for (size_t i = 0; i < txn->write_count; i++) {
        if (txn_is_change(&txn->writes[i]))
            sorted[count++] = &txn->writes[i];
    }
    sort_array(sorted, count, sizeof *sorted, txn_compare);
    *groups = count != 0;
    for (size_t i = 1; i < count; i++)
        *groups += (size_t)!txn_is_same_change(sorted[i - 1], sorted[i]);
    return count;
}

/* End of the run of one change that begins at `first`. */
static size_t txn_run_end(const struct txn_write *const *sorted, size_t first, size_t count)
{
    size_t end = first + 1;
    while (end < count && txn_is_same_change(sorted[first], sorted[end]))
        end++;
    return end;
}

static int txn_commit_sorted(omendb_txn *txn, const struct txn_write *const *sorted, size_t count,
                             size_t groups, const char *prepare_as)
{
    struct memory *memory = &txn->db->memory;
    size_t bytes = memory_multiply(groups, sizeof(struct change)), gathered = 0;
    struct change *changes = memory_zalloc(memory, bytes);
    int code = changes == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (size_t first = 0, end; first < count && code == OMENDB_OK; first = end) {
        end = txn_run_end(sorted, first, count);
        code = txn_gather(memory, sorted + first, end - first, &changes[gathered++]);
    }
    for (size_t i = 0; i < gathered && code == OMENDB_OK; i++)
        code = fields_check_change(&changes[i]);
    if (code == OMENDB_OK)
        code = prepare_as == NULL
                   ? commit_changes(txn->db, changes, groups, txn->snapshot)
                   : prepared_prepare(txn->db, prepare_as, changes, groups, txn->snapshot);
    for (size_t i = 0, first = 0, end; i < gathered; i++, first = end) {
        end = txn_run_end(sorted, first, count);
        memory_free(memory, changes[i].ids, (end - first) * sizeof *changes[i].ids);
        memory_free(memory, (void *)(uintptr_t)changes[i].vectors,
                    (end - first) * changes[i].collection->vector_bytes);
        memory_free(memory, (void *)(uintptr_t)changes[i].document_sizes,
                    (end - first) * sizeof *changes[i].document_sizes);
        memory_free(memory, (void *)(uintptr_t)changes[i].documents,
                    (size_t)changes[i].document_bytes);
    }
    memory_free(memory, changes, bytes);
    return code;
}

OMENDB_INTERNAL int txn_commit(omendb_txn *txn, const char *prepare_as)
{
    struct memory *memory = &txn->db->memory;
    if (txn->write_count == 0 && prepare_as == NULL)
        return OMENDB_OK;
    size_t groups, bytes = memory_multiply(txn->write_count, sizeof(struct txn_write *));
    const struct txn_write **sorted = memory_alloc(memory, bytes);
    if (sorted == NULL)
        return OMENDB_NOMEM;
    size_t count = txn_sort_writes(txn, sorted, &groups);
    int code = groups == 0 && prepare_as == NULL
                   ? OMENDB_OK
                   : txn_commit_sorted(txn, sorted, count, groups, prepare_as);
    memory_free(memory, (void *)sorted, bytes);
    return code;
}

#undef TXN_SHARE
#undef TXN_RESERVE_SHARE
#undef TXN_CHANGE_BYTES
#undef TXN_KEY_BYTES
