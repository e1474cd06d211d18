/* fuzz_calls.h: bytes as calls of the public interface, over a disk.
 *
 * With a model (`exact`) each answer is compared with what was committed; without, it has to be
 * sane. The model: of each collection and id the value whose vector is stored, or none; in
 * collection "b" it says what key and metadata are, and its upper half what an update added. A
 * transaction has a copy of it, and conflicts where others wrote what it wrote since it began. */
#ifndef OMENDB_FUZZ_CALLS_H
#define OMENDB_FUZZ_CALLS_H

#include "fuzz.h"
#include "fuzz_database.h"

#define FUZZ_COLLECTIONS 3
#define FUZZ_IDS         64
#define FUZZ_OP_BYTES    8
#define FUZZ_OPS_MAX     128
#define FUZZ_BATCH_MAX   12

/* One collection as it is committed, or as a transaction sees it. */
struct fuzz_model {
    int exists;
    uint32_t dim;
    uint32_t value[FUZZ_IDS]; /* 0: no record */
};

#define FUZZ_PREPARED 2
#define FUZZ_KEYED    1 /* the collection of records with keys and metadata */
#define FUZZ_VALUE    0xffff

struct fuzz_calls {
    struct fuzz_disk *disk;
    int exact;
    uint32_t io, read_only;
    omendb *db;
    omendb_collection *collections[FUZZ_COLLECTIONS];
    omendb_txn *txn;
    int txn_mode;
    /* Since the transaction began, by it and by others. */
    int wrote[FUZZ_COLLECTIONS][FUZZ_IDS], others_wrote[FUZZ_COLLECTIONS][FUZZ_IDS];
    int others_dropped; /* what it had changed */
    /* What is committed; what the transaction sees; what it saw when it began. */
    struct fuzz_model now[FUZZ_COLLECTIONS], seen[FUZZ_COLLECTIONS], begun[FUZZ_COLLECTIONS];
    /* Prepared transactions: what each is to change, while it waits. */
    struct {
        int state; /* omendb_prepared_state; 0: there is none */
        int changes[FUZZ_COLLECTIONS][FUZZ_IDS];
        uint32_t value[FUZZ_COLLECTIONS][FUZZ_IDS];
    } prepared[FUZZ_PREPARED];
    struct fuzz_disk backup;
};

struct fuzz_op {
    uint8_t what, which, id, mode;
    uint32_t value;
};

static const char *const fuzz_names[FUZZ_COLLECTIONS] = {"a", "b", "codes"};
static const char *const fuzz_prepared_names[FUZZ_PREPARED] = {"one", "two"};

/* What an answer must be: the model's when there is one. */
static inline int fuzz_expect(const struct fuzz_calls *calls, int code, int expected)
{
    fuzz_sane(code);
    if (calls->exact)
        FUZZ_CHECK(code == expected);
    return code;
}

/* ---- the database */

/* Names and states of prepared transactions, which are in the order of the names. */
static inline void fuzz_calls_list_prepared(const struct fuzz_calls *calls)
{
    char name[OMENDB_PREPARED_NAME_MAX + 1];
    size_t index = 0;
    int state = 0;
    for (size_t i = 0; i < FUZZ_PREPARED && calls->exact; i++) {
        if (calls->prepared[i].state == 0)
            continue;
        fuzz_must(omendb_prepared_name(calls->db, index++, name, sizeof name, &state));
        FUZZ_CHECK(strcmp(name, fuzz_prepared_names[i]) == 0 && state == calls->prepared[i].state);
    }
    fuzz_expect(calls, omendb_prepared_name(calls->db, index, name, sizeof name, &state),
                OMENDB_DONE);
}

static inline int fuzz_calls_is_locked(const struct fuzz_calls *calls, size_t which, size_t id)
{
    for (size_t i = 0; i < FUZZ_PREPARED; i++)
        if (calls->prepared[i].state == OMENDB_PREPARED_WAITING &&
            calls->prepared[i].changes[which][id])
            return 1;
    return 0;
}

static inline void fuzz_calls_open(struct fuzz_calls *calls)
{
    int code = fuzz_open(calls->disk, calls->io, calls->read_only, &calls->db);
    fuzz_expect(calls, code, OMENDB_OK);
    for (size_t i = 0; i < FUZZ_COLLECTIONS && calls->db != NULL; i++) {
        omendb_schema schema = OMENDB_SCHEMA_INIT;
        code = omendb_collection_open(calls->db, fuzz_names[i], NULL, &calls->collections[i]);
        fuzz_expect(calls, code, calls->now[i].exists ? OMENDB_OK : OMENDB_NOTFOUND);
        if (code != OMENDB_OK)
            continue;
        fuzz_must(omendb_collection_schema(calls->collections[i], &schema));
        calls->now[i].dim = schema.dim;
        calls->now[i].exists = 1;
    }
    if (calls->db != NULL)
        fuzz_calls_list_prepared(calls);
}

static inline void fuzz_calls_end_txn(struct fuzz_calls *calls)
{
    omendb_txn_rollback(calls->txn);
    calls->txn = NULL;
    memset(calls->wrote, 0, sizeof calls->wrote);
    memset(calls->others_wrote, 0, sizeof calls->others_wrote);
    calls->others_dropped = 0;
}

static inline void fuzz_calls_close(struct fuzz_calls *calls)
{
    fuzz_calls_end_txn(calls);
    for (size_t i = 0; i < FUZZ_COLLECTIONS; i++) {
        omendb_collection_close(calls->collections[i]);
        calls->collections[i] = NULL;
    }
    if (calls->db != NULL)
        fuzz_expect(calls, omendb_close(calls->db), OMENDB_OK);
    calls->db = NULL;
}

static inline void fuzz_calls_begin(struct fuzz_calls *calls, struct fuzz_disk *disk, int exact)
{
    memset(calls, 0, sizeof *calls);
    calls->disk = disk;
    calls->exact = exact;
    fuzz_disk_begin(&calls->backup);
    fuzz_calls_open(calls);
}

/* ---- changes */

static inline void fuzz_calls_set(struct fuzz_calls *calls, const struct fuzz_op *op, uint64_t id,
                                  uint32_t value)
{
    int inside = calls->txn != NULL && (op->mode & 1) != 0;
    (inside ? calls->seen : calls->now)[op->which].value[id] = value;
    (inside ? calls->wrote : calls->others_wrote)[op->which][id] = 1;
}

static inline omendb_txn *fuzz_calls_txn(const struct fuzz_calls *calls, const struct fuzz_op *op)
{
    return (op->mode & 1) != 0 ? calls->txn : NULL;
}

static inline const struct fuzz_model *fuzz_calls_model(const struct fuzz_calls *calls,
                                                        const struct fuzz_op *op)
{
    return fuzz_calls_txn(calls, op) != NULL ? &calls->seen[op->which] : &calls->now[op->which];
}

/* Whether a write may be made; OMENDB_OK or what it must answer. */
static inline int fuzz_calls_writable(const struct fuzz_calls *calls, const struct fuzz_op *op)
{
    if (calls->read_only)
        return OMENDB_READONLY;
    return fuzz_calls_txn(calls, op) != NULL && calls->txn_mode == OMENDB_READ_ONLY
               ? OMENDB_READONLY
               : OMENDB_OK;
}

static inline int fuzz_calls_write(struct fuzz_calls *calls, const struct fuzz_op *op, size_t count,
                                   const uint64_t *ids, const uint64_t *values, uint32_t dim)
{
    static float vectors[FUZZ_BATCH_MAX * FUZZ_DIM_MAX];
    omendb_collection *collection = calls->collections[op->which];
    omendb_txn *txn = fuzz_calls_txn(calls, op);
    const int adds = (op->mode & 2) != 0;
    if (op->which == FUZZ_KEYED)
        return fuzz_write_documents(collection, txn, adds, count, ids, values, dim);
    for (size_t i = 0; i < count; i++)
        fuzz_vector(values[i], dim, vectors + i * dim);
    return (adds ? omendb_add_batch : omendb_put_batch)(collection, txn, count, ids, vectors,
                                                        OMENDB_F32, NULL);
}

/* Records of consecutive ids; add instead of put with mode bit 1. */
static inline void fuzz_calls_put(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    uint64_t ids[FUZZ_BATCH_MAX], values[FUZZ_BATCH_MAX];
    const struct fuzz_model *model = fuzz_calls_model(calls, op);
    size_t count = 1 + (op->mode >> 2) % FUZZ_BATCH_MAX;
    int adds = (op->mode & 2) != 0, expected = fuzz_calls_writable(calls, op);
    if (model->dim > FUZZ_DIM_MAX)
        return;
    for (size_t i = 0; i < count; i++) {
        ids[i] = (op->id + i) % FUZZ_IDS;
        values[i] = op->value % 1000 + i + 1;
        if (expected == OMENDB_OK && fuzz_calls_txn(calls, op) == NULL &&
            fuzz_calls_is_locked(calls, op->which, ids[i]))
            expected = OMENDB_BUSY;
        if (adds && expected == OMENDB_OK && model->value[ids[i]] != 0)
            expected = OMENDB_EXISTS;
    }
    int code = fuzz_calls_write(calls, op, count, ids, values, model->dim);
    fuzz_expect(calls, code, expected);
    for (size_t i = 0; i < count && code == OMENDB_OK; i++)
        fuzz_calls_set(calls, op, ids[i], (uint32_t)values[i]);
}

static inline void fuzz_calls_delete(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    const struct fuzz_model *model = fuzz_calls_model(calls, op);
    uint64_t id = op->id % FUZZ_IDS;
    int expected = fuzz_calls_writable(calls, op);
    if (expected == OMENDB_OK && fuzz_calls_txn(calls, op) == NULL &&
        fuzz_calls_is_locked(calls, op->which, id))
        expected = OMENDB_BUSY;
    if (expected == OMENDB_OK && model->value[id] == 0)
        expected = OMENDB_NOTFOUND;
    struct fuzz_document document = {{0}, {0}};
    if (op->which == FUZZ_KEYED && model->value[id] != 0)
        fuzz_document(id, model->value[id] & FUZZ_VALUE, &document);
    omendb_collection *collection = calls->collections[op->which];
    int code = document.key[0] != '\0' && op->value % 2 != 0
                   ? omendb_delete_key(collection, fuzz_calls_txn(calls, op), document.key)
                   : omendb_delete(collection, fuzz_calls_txn(calls, op), id);
    if (fuzz_expect(calls, code, expected) == OMENDB_OK)
        fuzz_calls_set(calls, op, id, 0);
}

/* Adds one field, or replaces it. */
static inline void fuzz_calls_update(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    char patch[32];
    const struct fuzz_model *model = fuzz_calls_model(calls, op);
    const uint32_t id = op->id % FUZZ_IDS, number = 1 + op->value % 1000;
    int expected = fuzz_calls_writable(calls, op);
    if (expected == OMENDB_OK && model->value[id] == 0)
        expected = OMENDB_NOTFOUND;
    if (expected == OMENDB_OK && fuzz_calls_txn(calls, op) == NULL &&
        fuzz_calls_is_locked(calls, op->which, id))
        expected = OMENDB_BUSY;
    snprintf(patch, sizeof patch, "{\"u\":%u}", (unsigned)number);
    int code = omendb_update(calls->collections[op->which], fuzz_calls_txn(calls, op), id, patch);
    if (fuzz_expect(calls, code, expected) == OMENDB_OK)
        fuzz_calls_set(calls, op, id, (model->value[id] & FUZZ_VALUE) | number << 16);
}

static inline void fuzz_calls_create(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    omendb_collection *made = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    struct fuzz_model *model = &calls->now[op->which];
    schema.dim = 1 + op->value % 48;
    schema.metric = (op->value >> 8) % 3;
    schema.scalar = (op->value >> 10) % 3;
    schema.M = 2 + (op->value >> 12) % 3;
    schema.ef_construction = 8;
    schema.ef = 1 + (op->value >> 16) % 8;
    int code = omendb_collection_create(calls->db, fuzz_names[op->which], &schema, &made);
    fuzz_expect(calls, code,
                calls->read_only ? OMENDB_READONLY
                : model->exists  ? OMENDB_EXISTS
                                 : OMENDB_OK);
    if (code != OMENDB_OK)
        return;
    omendb_collection_close(calls->collections[op->which]);
    calls->collections[op->which] = made;
    memset(model, 0, sizeof *model);
    model->exists = 1;
    model->dim = schema.dim;
    calls->seen[op->which] = calls->begun[op->which] = *model; /* for the transaction it is empty */
}

/* A record that the transaction added and deleted again is no change. */
static inline int fuzz_calls_changed(const struct fuzz_calls *calls, size_t which, size_t id)
{
    return calls->wrote[which][id] &&
           (calls->begun[which].value[id] != 0 || calls->seen[which].value[id] != 0);
}

static inline void fuzz_calls_drop(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    struct fuzz_model *model = &calls->now[op->which];
    int code = omendb_collection_drop(calls->db, fuzz_names[op->which]), locked = 0;
    for (size_t i = 0; i < FUZZ_IDS; i++)
        locked |= fuzz_calls_is_locked(calls, op->which, i);
    fuzz_expect(calls, code,
                calls->read_only ? OMENDB_READONLY
                : !model->exists ? OMENDB_NOTFOUND
                : locked         ? OMENDB_BUSY
                                 : OMENDB_OK);
    if (code != OMENDB_OK)
        return;
    omendb_collection_close(calls->collections[op->which]);
    calls->collections[op->which] = NULL;
    for (size_t i = 0; i < FUZZ_IDS; i++)
        calls->others_dropped |= fuzz_calls_changed(calls, op->which, i);
    memset(calls->wrote[op->which], 0, sizeof calls->wrote[op->which]);
    memset(model, 0, sizeof *model);
    calls->seen[op->which] = calls->begun[op->which] = *model;
}

/* ---- transactions */

static inline void fuzz_calls_begin_txn(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    if (calls->txn != NULL)
        return;
    calls->txn_mode = op->mode & 2 ? OMENDB_READ_ONLY : OMENDB_READ_WRITE;
    int code = omendb_txn_begin(calls->db, calls->txn_mode, &calls->txn);
    fuzz_expect(calls, code,
                calls->read_only && calls->txn_mode == OMENDB_READ_WRITE ? OMENDB_READONLY
                                                                         : OMENDB_OK);
    memcpy(calls->seen, calls->now, sizeof calls->seen);
    memcpy(calls->begun, calls->now, sizeof calls->begun);
    memset(calls->others_wrote, 0, sizeof calls->others_wrote);
}

static inline int fuzz_calls_conflicts(const struct fuzz_calls *calls)
{
    for (size_t i = 0; i < FUZZ_COLLECTIONS; i++)
        for (size_t id = 0; id < FUZZ_IDS; id++)
            if (fuzz_calls_changed(calls, i, id) && calls->others_wrote[i][id])
                return 1;
    return 0;
}

/* What the commit of the transaction must answer, which answered `code`. */
static inline int fuzz_calls_outcome(const struct fuzz_calls *calls, int code)
{
    const int conflicts = fuzz_calls_conflicts(calls);
    if (calls->others_dropped && !(conflicts && code == OMENDB_CONFLICT))
        return OMENDB_DROPPED;
    return conflicts ? OMENDB_CONFLICT : OMENDB_OK;
}

/* Whether it changed what a prepared transaction has locked. */
static inline int fuzz_calls_meets_lock(const struct fuzz_calls *calls)
{
    int met = 0;
    for (size_t i = 0; i < FUZZ_COLLECTIONS; i++)
        for (size_t id = 0; id < FUZZ_IDS; id++)
            met |= fuzz_calls_changed(calls, i, id) && fuzz_calls_is_locked(calls, i, id);
    return met;
}

/* Commits or prepares. What stands in its way twice is told of one of the two. */
static inline int fuzz_calls_finish_txn(struct fuzz_calls *calls, const char *prepare_as, int known)
{
    int locked = fuzz_calls_meets_lock(calls);
    int code = prepare_as == NULL ? omendb_txn_commit(calls->txn)
                                  : omendb_txn_prepare(calls->txn, prepare_as);
    int expected = fuzz_calls_outcome(calls, code);
    calls->txn = NULL;
    fuzz_sane(code);
    if (expected == OMENDB_OK && known)
        expected = OMENDB_EXISTS;
    if (calls->exact && locked)
        FUZZ_CHECK(code == OMENDB_BUSY ||
                   (code == expected && code != OMENDB_OK && code != OMENDB_EXISTS));
    else
        fuzz_expect(calls, code, expected);
    return code;
}

/* Takes over those records that it changed; of others it may have seen an old state. */
static inline void fuzz_calls_commit(struct fuzz_calls *calls)
{
    if (calls->txn == NULL)
        return;
    int code = fuzz_calls_finish_txn(calls, NULL, 0);
    for (size_t i = 0; i < FUZZ_COLLECTIONS && code == OMENDB_OK; i++)
        for (size_t id = 0; id < FUZZ_IDS; id++)
            if (fuzz_calls_changed(calls, i, id))
                calls->now[i].value[id] = calls->seen[i].value[id];
    fuzz_calls_end_txn(calls);
}

/* ---- prepared transactions */

static inline void fuzz_calls_prepare(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    const size_t slot = op->id % FUZZ_PREPARED;
    if (calls->txn == NULL || calls->txn_mode == OMENDB_READ_ONLY)
        return;
    int code =
        fuzz_calls_finish_txn(calls, fuzz_prepared_names[slot], calls->prepared[slot].state != 0);
    for (size_t i = 0; i < FUZZ_COLLECTIONS && code == OMENDB_OK; i++)
        for (size_t id = 0; id < FUZZ_IDS; id++) {
            calls->prepared[slot].changes[i][id] = fuzz_calls_changed(calls, i, id);
            calls->prepared[slot].value[i][id] = calls->seen[i].value[id];
        }
    if (code == OMENDB_OK)
        calls->prepared[slot].state = OMENDB_PREPARED_WAITING;
    fuzz_calls_end_txn(calls);
}

/* Its changes become those of everybody. */
static inline void fuzz_calls_apply_prepared(struct fuzz_calls *calls, size_t slot)
{
    for (size_t i = 0; i < FUZZ_COLLECTIONS; i++)
        for (size_t id = 0; id < FUZZ_IDS; id++) {
            if (!calls->prepared[slot].changes[i][id])
                continue;
            calls->now[i].value[id] = calls->prepared[slot].value[i][id];
            calls->others_wrote[i][id] = 1;
        }
}

static inline void fuzz_calls_settle(struct fuzz_calls *calls, const struct fuzz_op *op,
                                     int commits)
{
    const size_t slot = op->id % FUZZ_PREPARED;
    const int state = calls->prepared[slot].state;
    const int wanted = commits ? OMENDB_PREPARED_COMMITTED : OMENDB_PREPARED_ROLLED_BACK;
    int code = (commits ? omendb_commit_prepared
                        : omendb_rollback_prepared)(calls->db, fuzz_prepared_names[slot]);
    fuzz_expect(calls, code,
                calls->read_only                                      ? OMENDB_READONLY
                : state == 0                                          ? OMENDB_NOTFOUND
                : state == OMENDB_PREPARED_WAITING || state == wanted ? OMENDB_OK
                                                                      : OMENDB_CONFLICT);
    if (code != OMENDB_OK)
        return;
    if (commits && state == OMENDB_PREPARED_WAITING)
        fuzz_calls_apply_prepared(calls, slot);
    calls->prepared[slot].state = wanted;
}

static inline void fuzz_calls_forget(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    const size_t slot = op->id % FUZZ_PREPARED;
    const int state = calls->prepared[slot].state;
    int code = omendb_forget_prepared(calls->db, fuzz_prepared_names[slot]);
    fuzz_expect(calls, code,
                calls->read_only                   ? OMENDB_READONLY
                : state == 0                       ? OMENDB_NOTFOUND
                : state == OMENDB_PREPARED_WAITING ? OMENDB_BUSY
                                                   : OMENDB_OK);
    if (code == OMENDB_OK)
        calls->prepared[slot].state = 0;
}

/* An open transaction may stand in its way; nothing is seen of it in any case. */
static inline void fuzz_calls_purge(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    const char *name = calls->now[op->which].exists ? fuzz_names[op->which] : NULL;
    int code = fuzz_sane(omendb_purge(calls->db, name));
    if (code != OMENDB_BUSY || calls->txn == NULL)
        fuzz_expect(calls, code, calls->read_only ? OMENDB_READONLY : OMENDB_OK);
}

/* ---- questions */

/* The metadata of a value, with what an update added to it: a name behind all others. */
static inline void fuzz_calls_metadata(int keyed, uint64_t id, uint32_t value,
                                       struct fuzz_document *document)
{
    const unsigned number = value >> 16;
    if (keyed)
        fuzz_document(id, value & FUZZ_VALUE, document);
    size_t size = strlen(document->metadata);
    if (number == 0 && size == 0)
        memcpy(document->metadata, "{}", 3);
    else if (number != 0)
        snprintf(document->metadata + (size == 0 ? 0 : size - 1), sizeof document->metadata - size,
                 "%s\"u\":%u}", size == 0 ? "{" : ",", number);
}

/* Key and metadata are those of the value, and the key leads to the record. */
static inline void fuzz_calls_get_document(struct fuzz_calls *calls, const struct fuzz_op *op,
                                           uint64_t id, uint32_t value)
{
    struct fuzz_document expected = {{0}, {0}};
    char key[OMENDB_KEY_MAX + 1], metadata[256];
    uint64_t found = 0;
    omendb_collection *collection = calls->collections[op->which];
    omendb_txn *txn = fuzz_calls_txn(calls, op);
    const int there = value == 0 ? OMENDB_NOTFOUND : OMENDB_OK;
    int code = omendb_get_key(collection, txn, id, key, sizeof key, NULL);
    fuzz_expect(calls, code, there);
    code = omendb_get_metadata(collection, txn, id, NULL, 0, metadata, sizeof metadata, NULL);
    if (code != OMENDB_TOOBIG || calls->exact)
        fuzz_expect(calls, code, there);
    if (value == 0 || !calls->exact)
        return;
    fuzz_calls_metadata(op->which == FUZZ_KEYED, id, value, &expected);
    FUZZ_CHECK(strcmp(metadata, expected.metadata) == 0 && strcmp(key, expected.key) == 0);
    if (key[0] != '\0')
        fuzz_must(omendb_find(collection, txn, key, &found));
    FUZZ_CHECK(key[0] == '\0' || found == id);
    key[0] = '?'; /* nothing begins so */
    FUZZ_CHECK(omendb_find(collection, txn, key[1] == '\0' ? "?" : key, &found) == OMENDB_NOTFOUND);
}

static inline void fuzz_calls_get(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    float vector[FUZZ_DIM_MAX], expected[FUZZ_DIM_MAX];
    const struct fuzz_model *model = fuzz_calls_model(calls, op);
    uint32_t value = model->value[op->id % FUZZ_IDS];
    if (model->dim > FUZZ_DIM_MAX)
        return;
    int code = omendb_get(calls->collections[op->which], fuzz_calls_txn(calls, op),
                          op->id % FUZZ_IDS, OMENDB_F32, vector);
    fuzz_expect(calls, code, value == 0 ? OMENDB_NOTFOUND : OMENDB_OK);
    fuzz_calls_get_document(calls, op, op->id % FUZZ_IDS, value);
    if (code != OMENDB_OK || !calls->exact)
        return;
    fuzz_vector(value & FUZZ_VALUE, model->dim, expected);
    FUZZ_CHECK(memcmp(vector, expected, model->dim * sizeof *vector) == 0);
}

static inline uint64_t fuzz_calls_count(const struct fuzz_model *model)
{
    uint64_t count = 0;
    for (size_t i = 0; i < FUZZ_IDS; i++)
        count += model->value[i] != 0;
    return count;
}

/* Every record, ascending, and no other. */
static inline void fuzz_calls_scan(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    float vector[FUZZ_DIM_MAX], expected[FUZZ_DIM_MAX];
    const struct fuzz_model *model = fuzz_calls_model(calls, op);
    omendb_rows *rows = NULL;
    uint64_t id = 0, count = 0;
    if (model->dim > FUZZ_DIM_MAX)
        return;
    omendb_txn *txn = fuzz_calls_txn(calls, op);
    fuzz_expect(calls, omendb_count(calls->collections[op->which], txn, &count), OMENDB_OK);
    FUZZ_CHECK(!calls->exact || count == fuzz_calls_count(model));
    int code = fuzz_sane(omendb_scan(calls->collections[op->which], txn, 0, UINT64_MAX - 1, &rows));
    for (uint64_t next = 0, seen = 0; code == OMENDB_OK && seen < FUZZ_SCAN_MAX; seen++) {
        code = fuzz_sane(omendb_rows_next(rows, &id, OMENDB_F32, vector));
        while (calls->exact && next < FUZZ_IDS && model->value[next] == 0)
            next++;
        if (calls->exact)
            FUZZ_CHECK(next == FUZZ_IDS ? code == OMENDB_DONE : code == OMENDB_OK && id == next);
        if (calls->exact && code == OMENDB_OK) {
            fuzz_vector(model->value[next] & FUZZ_VALUE, model->dim, expected);
            FUZZ_CHECK(memcmp(vector, expected, model->dim * sizeof *vector) == 0);
            fuzz_calls_get_document(calls, op, next, model->value[next]);
            next++;
        }
    }
    omendb_rows_close(rows);
}

/* To the end: every record comes once, and no other. */
static inline void fuzz_calls_pages(struct fuzz_calls *calls, const struct fuzz_op *op,
                                    const omendb_query *query, uint64_t records)
{
    const struct fuzz_model *model = fuzz_calls_model(calls, op);
    uint8_t seen[FUZZ_IDS] = {0};
    uint64_t ids[FUZZ_HITS], total = 0;
    omendb_pages *pages = NULL;
    size_t count = 0;
    int code = fuzz_sane(
        omendb_pages_open(calls->collections[op->which], fuzz_calls_txn(calls, op), query, &pages));
    while (code == OMENDB_OK && total < FUZZ_SCAN_MAX) {
        code = fuzz_sane(omendb_pages_next(pages, query->k, 0, ids, NULL, &count));
        total += count;
        for (size_t i = 0; i < count && calls->exact; i++)
            FUZZ_CHECK(ids[i] < FUZZ_IDS && model->value[ids[i]] != 0 && !seen[ids[i]]++);
    }
    omendb_pages_close(pages);
    FUZZ_CHECK(!calls->exact || code != OMENDB_DONE || total == records);
}

static inline void fuzz_calls_facets(struct fuzz_calls *calls, const struct fuzz_op *op,
                                     const char *field, uint64_t records)
{
    omendb_facets *facets = NULL;
    omendb_facet facet = OMENDB_FACET_INIT;
    uint64_t counted = 0, nulls = 0, before = UINT64_MAX;
    int code =
        fuzz_sane(omendb_facets_open(calls->collections[op->which], fuzz_calls_txn(calls, op), NULL,
                                     NULL, NULL, field, op->id % 3, &facets));
    if (code != OMENDB_OK)
        return;
    FUZZ_CHECK(omendb_facets_totals(facets, &counted, &nulls, NULL) == OMENDB_OK);
    FUZZ_CHECK(nulls <= counted && (!calls->exact || counted == records));
    while (omendb_facets_next(facets, &facet) == OMENDB_OK) {
        FUZZ_CHECK(facet.count != 0 && facet.count <= before && facet.count <= counted);
        before = facet.count;
    }
    omendb_facets_close(facets);
}

/* Other ways to ask for what a search gave. */
static inline void fuzz_calls_ask_more(struct fuzz_calls *calls, const struct fuzz_op *op,
                                       omendb_query *query, uint64_t records)
{
    static const char *const fields[] = {"n", "t", "u", "_key"};
    uint64_t ids[FUZZ_HITS];
    size_t counts[1] = {0};
    fuzz_calls_pages(calls, op, query, records);
    fuzz_calls_facets(calls, op, fields[op->value % 3], records);
    query->group_by = fields[op->value % 4];
    query->group_size = op->value % 5;
    const int code = fuzz_sane(omendb_search_many(
        calls->collections[op->which], fuzz_calls_txn(calls, op), query, 1, ids, NULL, counts));
    FUZZ_CHECK(code != OMENDB_OK || counts[0] <= query->k);
}

static inline void fuzz_calls_search(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    float vector[FUZZ_DIM_MAX], distances[FUZZ_HITS];
    const struct fuzz_model *model = fuzz_calls_model(calls, op);
    uint64_t ids[FUZZ_HITS], records = fuzz_calls_count(model);
    size_t count = 0;
    omendb_query query = OMENDB_QUERY_INIT;
    if (model->dim > FUZZ_DIM_MAX)
        return;
    fuzz_vector(op->value, model->dim, vector);
    query.vector = vector;
    query.k = 1 + op->id % FUZZ_HITS;
    query.exact = op->mode >> 1 & 1;
    query.ef = op->mode >> 2 & 7;
    int code = omendb_search(calls->collections[op->which], fuzz_calls_txn(calls, op), &query, ids,
                             distances, &count);
    fuzz_expect(calls, code, OMENDB_OK);
    if (code != OMENDB_OK)
        return;
    fuzz_check_hits(count, query.k, distances);
    FUZZ_CHECK(!calls->exact || count == (records < query.k ? records : query.k));
    for (size_t i = 0; i < count && calls->exact; i++)
        FUZZ_CHECK(ids[i] < FUZZ_IDS && model->value[ids[i]] != 0);
    if (op->mode >> 5 & 1)
        fuzz_calls_ask_more(calls, op, &query, records);
}

/* ---- upkeep */

/* All that was committed is there, and nothing else. */
static inline void fuzz_calls_compare_backup(struct fuzz_calls *calls)
{
    struct fuzz_calls copy = *calls;
    copy.disk = &calls->backup;
    copy.read_only = 1;
    copy.db = NULL;
    copy.txn = NULL;
    memset(copy.collections, 0, sizeof copy.collections);
    fuzz_calls_open(&copy);
    for (uint8_t i = 0; i < FUZZ_COLLECTIONS; i++) {
        struct fuzz_op scan = {.which = i};
        if (copy.collections[i] != NULL)
            fuzz_calls_scan(&copy, &scan);
    }
    if (copy.db != NULL)
        FUZZ_CHECK(fuzz_check_database(copy.db) == 0 || !calls->exact);
    fuzz_calls_close(&copy);
}

/* Each onto the one before. */
static inline void fuzz_calls_back_up(struct fuzz_calls *calls)
{
    calls->disk->beside = &calls->backup;
    int code = omendb_backup(calls->db, FUZZ_BESIDE);
    calls->disk->beside = NULL;
    fuzz_expect(calls, code, calls->read_only ? OMENDB_READONLY : OMENDB_OK);
    if (code == OMENDB_OK)
        fuzz_calls_compare_backup(calls);
}

static inline void fuzz_calls_keep(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    int writable = calls->read_only ? OMENDB_READONLY : OMENDB_OK;
    omendb_stats stats = OMENDB_STATS_INIT;
    switch (op->mode % 6) {
    case 0:
        fuzz_expect(calls, omendb_checkpoint(calls->db), writable);
        break;
    case 1:
        fuzz_expect(calls, omendb_optimize(calls->db, NULL, NULL), writable);
        break;
    case 2:
        fuzz_sane(omendb_work(calls->db, 0, NULL));
        break;
    case 3:
        FUZZ_CHECK(fuzz_check_database(calls->db) == 0 || !calls->exact);
        break;
    case 4:
        fuzz_sane(omendb_get_stats(calls->db, &stats));
        break;
    default:
        if (calls->txn == NULL)
            fuzz_expect(calls, omendb_refresh(calls->db), OMENDB_OK);
    }
}

static inline void fuzz_calls_rarer(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    struct fuzz_op update = *op;
    update.mode = op->mode >> 3; /* in the transaction or not */
    switch (op->mode % 8) {
    case 0:
        fuzz_calls_drop(calls, op);
        break;
    case 1:
        fuzz_calls_prepare(calls, op);
        break;
    case 2:
    case 3:
        fuzz_calls_settle(calls, op, op->mode % 8 == 2);
        break;
    case 4:
        fuzz_calls_forget(calls, op);
        break;
    case 5:
        fuzz_calls_purge(calls, op);
        break;
    case 6:
        fuzz_calls_back_up(calls);
        break;
    default:
        fuzz_calls_list_prepared(calls);
        if (calls->collections[op->which] != NULL)
            fuzz_calls_update(calls, &update);
    }
}

/* A clean close, or the death of the process: what was committed is there either way. */
static inline void fuzz_calls_reopen(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    struct fuzz_disk left;
    int dies = (op->mode & 4) != 0;
    if (dies)
        fuzz_disk_copy(&left, calls->disk);
    fuzz_calls_close(calls);
    if (dies) {
        fuzz_disk_end(calls->disk);
        fuzz_disk_copy(calls->disk, &left);
        fuzz_disk_end(&left);
    }
    calls->io = op->mode & 1 ? OMENDB_IO_MAP : OMENDB_IO_PREAD;
    calls->read_only = (op->mode & 3) == 2;
    fuzz_calls_open(calls);
}

static inline void fuzz_calls_one(struct fuzz_calls *calls, const struct fuzz_op *op)
{
    static void (*const on_records[])(struct fuzz_calls *, const struct fuzz_op *) = {
        fuzz_calls_put, fuzz_calls_put,  fuzz_calls_put,    fuzz_calls_delete,
        fuzz_calls_get, fuzz_calls_scan, fuzz_calls_search, fuzz_calls_search};
    uint32_t what = op->what % 16;
    if (what < 8) {
        /* One that was made since the transaction began is empty for it, whatever is in it. */
        if (calls->collections[op->which] != NULL)
            on_records[what](calls, op);
    } else if (what == 8) {
        fuzz_calls_create(calls, op);
    } else if (what == 9) {
        fuzz_calls_rarer(calls, op);
    } else if (what == 10) {
        fuzz_calls_begin_txn(calls, op);
    } else if (what == 11) {
        fuzz_calls_commit(calls);
    } else if (what == 12) {
        fuzz_calls_end_txn(calls);
    } else if (what == 13) {
        fuzz_calls_reopen(calls, op);
    } else {
        fuzz_calls_keep(calls, op);
    }
}

static inline void fuzz_calls_run(struct fuzz_calls *calls, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < FUZZ_OPS_MAX && size >= FUZZ_OP_BYTES; i++) {
        struct fuzz_op op = {data[0], data[1] % FUZZ_COLLECTIONS, data[2], data[3],
                             format_get32(data + 4)};
        if (calls->db == NULL) /* damaged beyond opening */
            return;
        fuzz_calls_one(calls, &op);
        data += FUZZ_OP_BYTES;
        size -= FUZZ_OP_BYTES;
    }
}

/* At the end everything is compared once more, after reopening. */
static inline void fuzz_calls_end(struct fuzz_calls *calls)
{
    struct fuzz_op reopen = {.mode = 1};
    if (calls->db != NULL)
        fuzz_calls_reopen(calls, &reopen);
    for (uint8_t i = 0; i < FUZZ_COLLECTIONS && calls->db != NULL; i++) {
        struct fuzz_op scan = {.which = i};
        if (calls->collections[i] != NULL)
            fuzz_calls_scan(calls, &scan);
    }
    if (calls->db != NULL)
        FUZZ_CHECK(fuzz_check_database(calls->db) == 0 || !calls->exact);
    fuzz_calls_close(calls);
    fuzz_disk_end(&calls->backup);
}

/* ---- seeds */

/* Of one collection: what is prepared waits over a death, meets others, is backed up, committed and
 * purged. */
static inline void fuzz_calls_seed_prepared(struct fuzz_seeds *seeds, const uint8_t *front,
                                            size_t front_bytes)
{
    static const uint8_t order[][2] = {{8, 0},  {0, 40}, {10, 0}, {0, 13}, {3, 1}, {9, 1},  {0, 12},
                                       {13, 5}, {9, 6},  {0, 12}, {9, 0},  {9, 2}, {5, 0},  {9, 3},
                                       {9, 5},  {14, 0}, {9, 6},  {9, 4},  {9, 6}, {13, 1}, {5, 0}};
    uint8_t program[64 + 40 * FUZZ_OP_BYTES] = {0};
    size_t size = front_bytes;
    if (front_bytes > 0)
        memcpy(program, front, front_bytes);
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++, size += FUZZ_OP_BYTES) {
        program[size] = order[i][0];
        program[size + 3] = order[i][1];
        program[size + 4] = 8;
    }
    fuzz_add_seed(seeds, program, size);
}

/* Of the collection of keys and metadata: in memory, in the log, in segments, updated, deleted by
 * key, in a transaction. */
static inline void fuzz_calls_seed_documents(struct fuzz_seeds *seeds, const uint8_t *front,
                                             size_t front_bytes)
{
    /* what, id, mode, value */
    static const uint8_t order[][4] = {
        {8, 0, 0, 8},  {0, 0, 44, 1}, {5, 0, 0, 0},  {9, 1, 7, 5},  {13, 0, 5, 0}, {5, 0, 0, 0},
        {14, 0, 0, 0}, {9, 2, 7, 6},  {0, 4, 20, 9}, {5, 0, 0, 0},  {14, 0, 1, 0}, {3, 3, 0, 1},
        {10, 0, 0, 0}, {0, 5, 21, 3}, {9, 6, 15, 4}, {3, 8, 1, 1},  {5, 0, 1, 0},  {9, 0, 1, 0},
        {13, 0, 5, 0}, {5, 0, 0, 0},  {9, 0, 2, 0},  {14, 0, 3, 0}, {9, 0, 6, 0},  {5, 0, 0, 0}};
    uint8_t program[64 + 40 * FUZZ_OP_BYTES] = {0};
    size_t size = front_bytes;
    if (front_bytes > 0)
        memcpy(program, front, front_bytes);
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++, size += FUZZ_OP_BYTES) {
        program[size] = order[i][0];
        program[size + 1] = FUZZ_KEYED;
        memcpy(program + size + 2, &order[i][1], 3);
    }
    fuzz_add_seed(seeds, program, size);
}

/* Programs behind `front`: one that does everything in order, and random ones. */
static inline void fuzz_calls_seed(struct fuzz_seeds *seeds, const uint8_t *front,
                                   size_t front_bytes)
{
    static const uint8_t order[] = {8,  0, 0,  0, 0, 14, 0, 3, 5,  6, 14, 10, 0, 3, 4,
                                    11, 5, 13, 6, 1, 15, 7, 9, 13, 8, 2,  13, 6, 14};
    uint8_t program[64 + 40 * FUZZ_OP_BYTES];
    uint64_t chance = 7;
    for (int kind = 0; kind < 4; kind++) {
        size_t size = front_bytes, count = kind == 0 ? sizeof order : 40;
        if (front_bytes > 0)
            memcpy(program, front, front_bytes);
        for (size_t i = 0; i < count; i++, size += FUZZ_OP_BYTES) {
            format_put64(program + size, fuzz_next(&chance));
            if (kind == 0)
                program[size] = order[i];
            if (kind < 2)
                program[size + 1] = 0;
        }
        fuzz_add_seed(seeds, program, size);
    }
    fuzz_calls_seed_prepared(seeds, front, front_bytes);
    fuzz_calls_seed_documents(seeds, front, front_bytes);
}

#endif
