/* crash_enumerate.c: what a database is after the power went, at every moment of a mixed workload.
 *
 * A workload of single records, batches, transactions over several collections, deletes, creations
 * and drops, snapshots, a reader beside the writer, checkpoints, merges, backups, deaths and
 * reopenings runs on the recording file system of crash_vfs.h, with limits so small that logs are
 * rotated and segments merged every few commits. In two of three collections records have keys,
 * which go from one record to another, and metadata, which are updated. Beside it a model is kept;
 * after every commit the digest of all that it holds is noted in a history. What is done how often
 * is one table, workload_operations.
 *
 * Then the log of the file system is walked. At each event disks are made as a crash might leave
 * them, and on each the database is opened: its digest must be that of a commit which is not older
 * than the last acknowledged one and not newer than the last attempted one. What a reader was shown
 * counts as acknowledged. Of the images a share is looked at more closely: opened read-only before,
 * which must show a legal state, too, and one that the writer then keeps; given to omendb_check;
 * worked on, with a model of their own; salvaged, which must give the same where no commit is torn;
 * and some of them crash again, in recovery or later. A
 * finished backup must be there, whole; one that was being brought up to date must be as it was
 * before or as it should become, and can be brought up to date then.
 *
 * Invariant: threads = 0 and one seed make a workload with its images repeatable, in whatever
 * process it runs; a failure prints the seed, the event and the kind of image.
 *
 *     crash_enumerate                         100,000 images, then every class of sync left out
 *     crash_enumerate --images N --seed S     a campaign
 *     crash_enumerate --omit-syncs            only the last part
 *     crash_enumerate --keep-going 1          counts failures instead of stopping at the first */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1

#include "crash_vfs.h"
#include "parallel.h"
#include "support.h"
#include "test.h"

#define ENUMERATE_COLLECTIONS 3
#define ENUMERATE_IDS         96
#define ENUMERATE_FREE_IDS    80 /* the others are those of prepared transactions, which lock them */
#define ENUMERATE_PREPARED    2
#define ENUMERATE_BACKUPS     4
#define ENUMERATE_SNAPSHOTS   2
#define ENUMERATE_STEPS       250  /* of a workload */
#define ENUMERATE_IMAGES      1250 /* of a workload */

/* Of backups: plus the number of the target. */
enum {
    MARK_ATTEMPT = 1,
    MARK_ACKNOWLEDGED = 2,
    MARK_BACKUP_ATTEMPT = 64,
    MARK_BACKUP = MARK_BACKUP_ATTEMPT + ENUMERATE_BACKUPS
};

static const char *const enumerate_names[ENUMERATE_COLLECTIONS] = {"alpha", "beta", "gamma"};
static const uint32_t enumerate_dims[ENUMERATE_COLLECTIONS] = {16, 32, 5};
static const uint32_t enumerate_scalars[ENUMERATE_COLLECTIONS] = {OMENDB_F32, OMENDB_I8,
                                                                  OMENDB_F16};

/* ------------------------------------------------------------------------------------------------
 * the model: value of each id, 0 where it is absent */

struct model {
    int present[ENUMERATE_COLLECTIONS];
    uint64_t value[ENUMERATE_COLLECTIONS][ENUMERATE_IDS];
    uint64_t patch[ENUMERATE_COLLECTIONS][ENUMERATE_IDS]; /* what an update put into the metadata */
    uint64_t limits[ENUMERATE_COLLECTIONS];               /* what they follow from, 0: none */
    uint64_t declared[ENUMERATE_COLLECTIONS];             /* likewise */
    uint64_t next_value;
    struct {
        int state;       /* omendb_prepared_state, 0: none */
        uint64_t serial; /* names it, and says with `present` what it changes */
        int present;     /* collections that there were, a bit each */
    } prepared[ENUMERATE_PREPARED];
};

/* The first five components are the digits of the value to the base 15, so that it can be read
 * back. */
static void model_vector(uint64_t value, uint32_t dim, float *vector)
{
    support_vector(value, dim, vector);
    for (int i = 0; i < 5; i++, value /= 15)
        vector[i] = (float)((int)(value % 15) - 7);
}

static uint64_t model_value(const float *vector)
{
    uint64_t value = 0;
    for (int i = 5; i-- > 0;)
        value = value * 15 + (uint64_t)(vector[i] + 7.0f);
    return value;
}

/* Key and metadata follow from id, value and patch; beta has neither. Two neighbours share a key,
 * which goes from one to the other; ids of prepared transactions have keys of their own. */
struct model_document {
    char key[32], metadata[80];
};

static int model_has_documents(int c)
{
    return c != 1;
}

static int model_has_key(int c, uint64_t value)
{
    return model_has_documents(c) && value != 0 && value % 3 == 0;
}

static void model_document(const struct model *model, int c, uint64_t id,
                           struct model_document *document)
{
    const unsigned long long value = model->value[c][id], patch = model->patch[c][id];
    const int told = model_has_documents(c) && value % 4 != 1;
    memset(document, 0, sizeof *document);
    if (model_has_key(c, value))
        snprintf(document->key, sizeof document->key, "%s-%d", enumerate_names[c],
                 (int)(id < ENUMERATE_FREE_IDS ? id / 2 : id));
    if (told && patch != 0)
        snprintf(document->metadata, sizeof document->metadata, "{\"patch\":%llu,\"value\":%llu}",
                 patch, value);
    else if (told || patch != 0)
        snprintf(document->metadata, sizeof document->metadata, "{\"%s\":%llu}",
                 told ? "value" : "patch", told ? value : patch);
}

/* The value of the next record to be put under the id: one with which it does not take the key that
 * its neighbour has, or had before the call, whose values then were those of `before`. */
static uint64_t model_next_value(struct model *model, int c, uint64_t id, const uint64_t *before)
{
    const int taken = model_has_key(c, model->value[c][id ^ 1]) || model_has_key(c, before[id ^ 1]);
    model->next_value++;
    model->next_value += taken && model_has_key(c, model->next_value);
    return model->next_value;
}

struct history {
    uint64_t *digests;
    size_t count, capacity;
};

static void history_add(struct history *history, uint64_t digest)
{
    if (history->count == history->capacity) {
        history->capacity = history->capacity * 2 + 64;
        history->digests = crash_memory(history->digests, history->capacity * sizeof(uint64_t));
    }
    history->digests[history->count++] = digest;
}

static void model_prepared_name(const struct model *model, int slot, char name[64])
{
    snprintf(name, 64, "move-%d-%llu-%d", slot, (unsigned long long)model->prepared[slot].serial,
             model->prepared[slot].present);
}

/* What write number `i` of a prepared transaction is; 0: there is none. value 0: deletes. */
static int model_prepared_write(const struct model *model, int slot, int i, int *c, uint64_t *id,
                                uint64_t *value)
{
    const uint64_t serial = model->prepared[slot].serial;
    struct support_random random = {serial * 8 + (uint64_t)i};
    const int present = model->prepared[slot].present;
    const int per_slot = (ENUMERATE_IDS - ENUMERATE_FREE_IDS) / ENUMERATE_PREPARED;
    if (i >= per_slot || (uint64_t)i > serial % 5)
        return 0;
    *c = (int)support_below(&random, ENUMERATE_COLLECTIONS);
    while ((present >> *c & 1) == 0)
        *c = (*c + 1) % ENUMERATE_COLLECTIONS;
    *id = (uint64_t)(ENUMERATE_FREE_IDS + slot * per_slot + i);
    *value = support_below(&random, 3) == 0 ? 0 : 500000 + serial * 8 + (uint64_t)i;
    return 1;
}

/* Whether a prepared transaction that waits changes the collection. */
static int model_is_locked(const struct model *model, int collection)
{
    uint64_t id, value;
    for (int slot = 0; slot < ENUMERATE_PREPARED; slot++) {
        for (int i = 0, c; model->prepared[slot].state == OMENDB_PREPARED_WAITING &&
                           model_prepared_write(model, slot, i, &c, &id, &value);
             i++)
            if (c == collection)
                return 1;
    }
    return 0;
}

/* What a snapshot sees. */
static uint64_t model_digest_records(const struct model *model)
{
    float vector[SUPPORT_DIM_MAX];
    struct model_document document;
    uint64_t digest = 0;
    for (int c = 0; c < ENUMERATE_COLLECTIONS; c++) {
        const uint64_t hash = support_hash_collection(enumerate_names[c]);
        if (!model->present[c])
            continue;
        digest += hash;
        for (uint64_t id = 0; id < ENUMERATE_IDS; id++) {
            if (model->value[c][id] == 0)
                continue;
            model_vector(model->value[c][id], enumerate_dims[c], vector);
            digest += support_hash_record(hash, id, vector, enumerate_dims[c]);
            model_document(model, c, id, &document);
            if (document.metadata[0] == '\0')
                memcpy(document.metadata, "{}", 3);
            digest += support_hash_document(hash, id, document.key, document.metadata);
        }
    }
    return digest;
}

/* So large that they stand in no way. */
static omendb_limits model_limits(uint64_t value)
{
    omendb_limits limits = OMENDB_LIMITS_INIT;
    if (value == 0)
        return limits;
    limits.records = 1000000 + value;
    limits.bytes = value % 2 ? 0 : UINT64_C(1) << 40;
    limits.writes_per_second = value % 3 ? 0 : 1000000000 + value;
    return limits;
}

/* Fields that records have, or that they need not have; `fields` takes two. */
static size_t model_declare(uint64_t value, omendb_field *fields, char name[32])
{
    fields[0] = fields[1] = (omendb_field)OMENDB_FIELD_INIT;
    snprintf(name, 32, "unused %llu", (unsigned long long)value);
    fields[0].name = name;
    fields[0].type = (uint32_t)(value % 6);
    fields[1].name = "patch";
    fields[1].type = OMENDB_FIELD_I64;
    return value == 0 ? 0 : 2;
}

static uint64_t model_digest_fields(const struct model *model, int c)
{
    char name[32];
    omendb_field fields[2];
    const size_t count = model_declare(model->declared[c], fields, name);
    uint64_t digest = 0;
    for (size_t i = 0; i < count; i++)
        digest += support_hash_field(support_hash_collection(enumerate_names[c]), fields[i].name,
                                     fields[i].type, 0, 0);
    return digest;
}

static uint64_t model_digest(const struct model *model)
{
    uint64_t digest = model_digest_records(model);
    char name[64];
    for (int c = 0; c < ENUMERATE_COLLECTIONS; c++) {
        const omendb_limits limits = model_limits(model->limits[c]);
        if (model->present[c])
            digest += support_hash_limits(support_hash_collection(enumerate_names[c]), &limits) +
                      model_digest_fields(model, c);
    }
    for (int slot = 0; slot < ENUMERATE_PREPARED; slot++) {
        if (model->prepared[slot].state == 0)
            continue;
        model_prepared_name(model, slot, name);
        digest += support_hash_prepared(name, model->prepared[slot].state);
    }
    return digest;
}

/* ------------------------------------------------------------------------------------------------
 * the workload */

struct workload {
    struct crash_fs *fs;
    struct support_random random;
    struct model model;
    struct history *history;
    omendb *db;
    omendb_collection *collections[ENUMERATE_COLLECTIONS];
    omendb *reader; /* read-only, on the same files, or NULL */
    omendb_txn *snapshots[ENUMERATE_SNAPSHOTS];
    uint64_t snapshot_digests[ENUMERATE_SNAPSHOTS];
    int backups; /* made so far; -1: make none */
    int broken;  /* a call failed that may not */
    uint32_t io, sync;
};

static int workload_expect(struct workload *work, int status, const char *what)
{
    if (status == OMENDB_OK)
        return 1;
    if (!work->fs->faults.dying)
        fprintf(stderr, "  %s: %s: %s\n", what, omendb_strerror(status), omendb_errmsg());
    work->broken = 1;
    return 0;
}

static omendb_options workload_options(struct workload *work)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.vfs = &work->fs->vfs;
    options.threads = 0;
    options.wal_limit = 24 * 1024;
    options.tail_limit = 6 * 1024;
    options.stall_timeout_ms = 1000;
    options.io = work->io;
    options.sync = work->sync;
    return options;
}

static int workload_open(struct workload *work, const char *path, int must_exist, omendb **db)
{
    omendb_options options = workload_options(work);
    options.must_exist = (uint32_t)must_exist;
    return omendb_open(path, &options, db);
}

static int workload_open_reader(struct workload *work, omendb **reader)
{
    omendb_options options = workload_options(work);
    options.read_only = 1;
    return omendb_open("/db", &options, reader);
}

static void workload_attempt(struct workload *work)
{
    crash_mark(work->fs, MARK_ATTEMPT, work->history->count);
    history_add(work->history, model_digest(&work->model));
}

/* All so far is on the disk, whatever the sync mode. */
static void workload_settle(struct workload *work)
{
    crash_mark(work->fs, MARK_ACKNOWLEDGED, work->history->count - 1);
}

/* A commit returned. */
static void workload_acknowledge(struct workload *work)
{
    if (work->sync == OMENDB_SYNC_FULL)
        workload_settle(work);
}

static void workload_open_collections(struct workload *work)
{
    for (int c = 0; c < ENUMERATE_COLLECTIONS && !work->broken; c++)
        if (work->model.present[c])
            workload_expect(
                work,
                omendb_collection_open(work->db, enumerate_names[c], NULL, &work->collections[c]),
                "open of a collection");
}

static void workload_close_collections(struct workload *work)
{
    for (int c = 0; c < ENUMERATE_COLLECTIONS; c++) {
        omendb_collection_close(work->collections[c]);
        work->collections[c] = NULL;
    }
}

/* A snapshot shows what was there when it began, whatever was merged since. */
static void workload_end_snapshot(struct workload *work, int i, int compare)
{
    uint64_t digest = 0;
    if (work->snapshots[i] != NULL && compare &&
        workload_expect(work, support_digest(work->db, work->snapshots[i], &digest),
                        "reading a snapshot") &&
        digest != work->snapshot_digests[i])
        workload_expect(work, OMENDB_CORRUPT, "a snapshot shows another state");
    omendb_txn_rollback(work->snapshots[i]);
    work->snapshots[i] = NULL;
}

static void workload_end_snapshots(struct workload *work, int compare)
{
    for (int i = 0; i < ENUMERATE_SNAPSHOTS; i++)
        workload_end_snapshot(work, i, compare);
}

static void workload_close_reader(struct workload *work)
{
    const int status = omendb_close(work->reader);
    work->reader = NULL;
    workload_expect(work, status, "close of a reader");
}

/* Creating and dropping is seen by snapshots, too: they end before. */
static void workload_create(struct workload *work, int c)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = enumerate_dims[c];
    schema.scalar = enumerate_scalars[c];
    schema.M = 4;
    schema.ef_construction = 16;
    workload_end_snapshots(work, 1);
    work->model.present[c] = 1;
    workload_attempt(work);
    if (workload_expect(
            work,
            omendb_collection_create(work->db, enumerate_names[c], &schema, &work->collections[c]),
            "create"))
        workload_acknowledge(work);
}

static void workload_drop(struct workload *work, int c)
{
    workload_end_snapshots(work, 1);
    omendb_collection_close(work->collections[c]);
    work->collections[c] = NULL;
    work->model.present[c] = 0;
    work->model.limits[c] = work->model.declared[c] = 0;
    memset(work->model.value[c], 0, sizeof work->model.value[c]);
    memset(work->model.patch[c], 0, sizeof work->model.patch[c]);
    workload_attempt(work);
    if (workload_expect(work, omendb_collection_drop(work->db, enumerate_names[c]), "drop"))
        workload_acknowledge(work);
}

/* What the model has for these ids is put, with keys and metadata where there are any. One that has
 * its key already is put by the key alone. */
static int workload_put_records(struct workload *work, omendb_txn *txn, int c, size_t count,
                                const uint64_t *ids, const float *vectors, int keyed)
{
    static struct model_document documents[ENUMERATE_IDS];
    omendb_record records[ENUMERATE_IDS];
    for (size_t i = 0; i < count; i++) {
        model_document(&work->model, c, ids[i], &documents[i]);
        records[i] = (omendb_record)OMENDB_RECORD_INIT;
        records[i].id = keyed ? OMENDB_ID_AUTO : ids[i];
        records[i].vector = vectors + i * enumerate_dims[c];
        records[i].key = documents[i].key[0] == '\0' ? NULL : documents[i].key;
        records[i].metadata = documents[i].metadata[0] == '\0' ? NULL : documents[i].metadata;
    }
    return omendb_put_records(work->collections[c], txn, count, records, NULL);
}

/* Puts `count` records with ids from `first` on. */
static void workload_put(struct workload *work, omendb_txn *txn, int c, uint64_t first,
                         uint64_t count)
{
    float vectors[ENUMERATE_IDS * SUPPORT_DIM_MAX];
    uint64_t ids[ENUMERATE_IDS], before[ENUMERATE_IDS];
    const uint32_t dim = enumerate_dims[c];
    memcpy(before, work->model.value[c], sizeof before);
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = (first + i) % ENUMERATE_FREE_IDS;
        work->model.value[c][ids[i]] = model_next_value(&work->model, c, ids[i], before);
        work->model.patch[c][ids[i]] = 0;
        model_vector(work->model.value[c][ids[i]], dim, vectors + i * dim);
    }
    const int keyed = count == 1 && model_has_key(c, before[ids[0]]) &&
                      model_has_key(c, work->model.value[c][ids[0]]);
    if (txn == NULL)
        workload_attempt(work);
    if (workload_expect(work,
                        model_has_documents(c)
                            ? workload_put_records(work, txn, c, (size_t)count, ids, vectors, keyed)
                            : omendb_put_batch(work->collections[c], txn, (size_t)count, ids,
                                               vectors, OMENDB_F32, NULL),
                        "put") &&
        txn == NULL)
        workload_acknowledge(work);
}

/* Updates the metadata of the first record from `first` on, or deletes it by its key. */
static void workload_edit(struct workload *work, omendb_txn *txn, int c, uint64_t first)
{
    char patch[32];
    struct model_document document;
    uint64_t id = first, tries = 0;
    while (work->model.value[c][id] == 0 && ++tries < ENUMERATE_FREE_IDS)
        id = (id + 1) % ENUMERATE_FREE_IDS;
    if (work->model.value[c][id] == 0 || !model_has_documents(c))
        return;
    model_document(&work->model, c, id, &document);
    const int deletes = document.key[0] != '\0' && support_below(&work->random, 2) == 0;
    work->model.patch[c][id] = deletes ? 0 : ++work->model.next_value;
    work->model.value[c][id] = deletes ? 0 : work->model.value[c][id];
    snprintf(patch, sizeof patch, "{\"patch\":%llu}", (unsigned long long)work->model.patch[c][id]);
    if (txn == NULL)
        workload_attempt(work);
    if (workload_expect(work,
                        deletes ? omendb_delete_key(work->collections[c], txn, document.key)
                                : omendb_update(work->collections[c], txn, id, patch),
                        "edit") &&
        txn == NULL)
        workload_acknowledge(work);
}

static void workload_delete(struct workload *work, omendb_txn *txn, int c, uint64_t first,
                            uint64_t count)
{
    uint64_t ids[ENUMERATE_IDS];
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = (first + i) % ENUMERATE_FREE_IDS;
        work->model.value[c][ids[i]] = work->model.patch[c][ids[i]] = 0;
    }
    if (txn == NULL)
        workload_attempt(work);
    if (workload_expect(work,
                        omendb_delete_batch(work->collections[c], txn, (size_t)count, ids, NULL),
                        "delete") &&
        txn == NULL)
        workload_acknowledge(work);
}

static int workload_pick(struct workload *work)
{
    int c = (int)support_below(&work->random, ENUMERATE_COLLECTIONS);
    for (int i = 0; i < ENUMERATE_COLLECTIONS; i++, c = (c + 1) % ENUMERATE_COLLECTIONS)
        if (work->model.present[c])
            return c;
    workload_create(work, 0);
    return 0;
}

/* Puts into one or two collections, deletes from another: all or nothing. */
static void workload_transaction(struct workload *work)
{
    omendb_txn *txn = NULL;
    const int a = workload_pick(work), b = workload_pick(work), c = workload_pick(work);
    const struct model before = work->model;
    if (work->broken ||
        !workload_expect(work, omendb_txn_begin(work->db, OMENDB_READ_WRITE, &txn), "begin"))
        return;
    workload_put(work, txn, a, support_below(&work->random, ENUMERATE_FREE_IDS),
                 1 + support_below(&work->random, 6));
    workload_delete(work, txn, b, support_below(&work->random, ENUMERATE_FREE_IDS),
                    1 + support_below(&work->random, 6));
    if (support_below(&work->random, 2) == 0)
        workload_put(work, txn, c, support_below(&work->random, ENUMERATE_FREE_IDS),
                     1 + support_below(&work->random, 3));
    if (support_below(&work->random, 2) == 0)
        workload_edit(work, txn, a, support_below(&work->random, ENUMERATE_FREE_IDS));
    if (support_below(&work->random, 5) == 0) {
        work->model = before;
        omendb_txn_rollback(txn);
        return;
    }
    workload_attempt(work);
    if (workload_expect(work, omendb_txn_commit(txn), "commit"))
        workload_acknowledge(work);
}

/* Both phases return when they are on the disk, unless nothing is ever synced. */
static void workload_acknowledge_phase(struct workload *work)
{
    if (work->sync != OMENDB_SYNC_OFF)
        workload_settle(work);
}

static void workload_prepare(struct workload *work, int slot)
{
    omendb_txn *txn = NULL;
    float vector[SUPPORT_DIM_MAX];
    char name[64];
    uint64_t id, value;
    (void)workload_pick(work);
    work->model.prepared[slot].serial = ++work->model.next_value % 30000;
    work->model.prepared[slot].present = 0;
    for (int c = 0; c < ENUMERATE_COLLECTIONS; c++)
        work->model.prepared[slot].present |= work->model.present[c] << c;
    if (work->broken ||
        !workload_expect(work, omendb_txn_begin(work->db, OMENDB_READ_WRITE, &txn), "begin"))
        return;
    struct workload writes = *work; /* with the model as it is when they are committed */
    for (int i = 0, c; model_prepared_write(&work->model, slot, i, &c, &id, &value); i++) {
        model_vector(value, enumerate_dims[c], vector);
        writes.model.value[c][id] = value;
        writes.model.patch[c][id] = 0;
        workload_expect(work,
                        value != 0 ? workload_put_records(&writes, txn, c, 1, &id, vector, 0)
                                   : omendb_delete_batch(work->collections[c], txn, 1, &id, NULL),
                        "a write to be prepared");
    }
    model_prepared_name(&work->model, slot, name);
    work->model.prepared[slot].state = OMENDB_PREPARED_WAITING;
    workload_attempt(work);
    if (workload_expect(work, omendb_txn_prepare(txn, name), "prepare"))
        workload_acknowledge_phase(work);
}

static void workload_decide(struct workload *work, int slot, const char *name)
{
    const int commits = support_below(&work->random, 3) != 0;
    uint64_t id, value;
    for (int i = 0, c; commits && model_prepared_write(&work->model, slot, i, &c, &id, &value); i++)
        work->model.value[c][id] = value, work->model.patch[c][id] = 0;
    work->model.prepared[slot].state =
        commits ? OMENDB_PREPARED_COMMITTED : OMENDB_PREPARED_ROLLED_BACK;
    workload_attempt(work);
    if (workload_expect(work,
                        commits ? omendb_commit_prepared(work->db, name)
                                : omendb_rollback_prepared(work->db, name),
                        "outcome"))
        workload_acknowledge_phase(work);
}

/* Repeats the outcome, tries the other one, and forgets it. */
static void workload_forget(struct workload *work, int slot, const char *name)
{
    const int committed = work->model.prepared[slot].state == OMENDB_PREPARED_COMMITTED;
    workload_expect(work,
                    committed ? omendb_commit_prepared(work->db, name)
                              : omendb_rollback_prepared(work->db, name),
                    "outcome once more");
    if ((committed ? omendb_rollback_prepared(work->db, name)
                   : omendb_commit_prepared(work->db, name)) != OMENDB_CONFLICT)
        workload_expect(work, OMENDB_CORRUPT, "another outcome");
    work->model.prepared[slot].state = 0;
    workload_attempt(work);
    if (workload_expect(work, omendb_forget_prepared(work->db, name), "forget"))
        workload_acknowledge_phase(work);
}

/* The next step of a prepared transaction. */
static void workload_two_phases(struct workload *work)
{
    const int slot = (int)support_below(&work->random, ENUMERATE_PREPARED);
    const int state = work->model.prepared[slot].state;
    char name[64];
    model_prepared_name(&work->model, slot, name);
    if (state == 0)
        workload_prepare(work, slot);
    else if (state == OMENDB_PREPARED_WAITING)
        workload_decide(work, slot, name);
    else
        workload_forget(work, slot, name);
}

/* Begins, compares, ends. */
static void workload_snapshot(struct workload *work)
{
    const int i = (int)support_below(&work->random, ENUMERATE_SNAPSHOTS);
    workload_end_snapshot(work, i, 1);
    if (work->broken || support_below(&work->random, 4) == 0)
        return;
    work->snapshot_digests[i] = model_digest_records(&work->model);
    workload_expect(work, omendb_txn_begin(work->db, OMENDB_READ_ONLY, &work->snapshots[i]),
                    "begin of a snapshot");
}

/* Opens a reader, or moves it on. What it shows is the newest state, and durable from then on. */
static void workload_read_beside(struct workload *work)
{
    uint64_t digest = 0;
    if (work->reader != NULL && support_below(&work->random, 8) == 0) {
        workload_close_reader(work);
        return;
    }
    const int status = work->reader == NULL ? workload_open_reader(work, &work->reader)
                                            : omendb_refresh(work->reader);
    if (!workload_expect(work, status, "a reader opens or refreshes") ||
        !workload_expect(work, support_digest(work->reader, NULL, &digest), "a reader reads"))
        return;
    if (digest != work->history->digests[work->history->count - 1])
        workload_expect(work, OMENDB_CORRUPT, "a reader shows another state");
    workload_settle(work);
}

/* To a new directory, or onto an earlier backup. */
static void workload_backup(struct workload *work)
{
    char path[32];
    if (work->backups < 0)
        return;
    uint64_t number = support_below(&work->random, (uint64_t)work->backups + 1);
    if (number == ENUMERATE_BACKUPS)
        number--;
    work->backups += number == (uint64_t)work->backups;
    snprintf(path, sizeof path, "/backup-%d", (int)number);
    crash_mark(work->fs, MARK_BACKUP_ATTEMPT + number, work->history->count - 1);
    if (workload_expect(work, omendb_backup(work->db, path), "backup"))
        crash_mark(work->fs, MARK_BACKUP + number, work->history->count - 1);
}

static void workload_reopen(struct workload *work)
{
    workload_end_snapshots(work, 1);
    workload_close_collections(work);
    if (!workload_expect(work, omendb_close(work->db), "close"))
        return;
    workload_settle(work);
    work->db = NULL;
    if (workload_expect(work, workload_open(work, "/db", 1, &work->db), "reopen"))
        workload_open_collections(work);
}

/* A checkpoint that finds the disk full after it began a new log: commits go on in that one. */
static void workload_fail_checkpoint(struct workload *work)
{
    const uint64_t at = 1 + support_below(&work->random, 6);
    crash_faults_begin(work->fs, CRASH_CALL_WRITE | CRASH_CALL_SPACE, at, 0, OMENDB_FULL, ENOSPC);
    const int status = omendb_checkpoint(work->db);
    crash_faults_begin(work->fs, 0, 0, 0, 0, 0);
    if (status != OMENDB_FULL)
        workload_expect(work, status, "checkpoint on a full disk");
}

static uint64_t workload_load_patch(struct workload *work, int c, uint64_t id)
{
    char metadata[80];
    unsigned long long patch = 0;
    if (omendb_get_metadata(work->collections[c], NULL, id, NULL, 0, metadata, sizeof metadata,
                            NULL) == OMENDB_OK)
        sscanf(metadata, "{\"patch\":%llu", &patch);
    return patch;
}

/* Reads one collection into the model, by a scan, or by id, which must give the same. */
static int workload_load_collection(struct workload *work, int c, int by_id)
{
    float vector[SUPPORT_DIM_MAX];
    omendb_rows *rows = NULL;
    uint64_t id = 0;
    int status = OMENDB_DONE;
    if (!by_id)
        status = omendb_scan(work->collections[c], NULL, 0, ENUMERATE_IDS, &rows);
    while (!by_id && (status = omendb_rows_next(rows, &id, OMENDB_F32, vector)) == OMENDB_OK)
        work->model.value[c][id] = model_value(vector);
    for (id = 0; by_id && id < ENUMERATE_IDS; id++)
        if (omendb_get(work->collections[c], NULL, id, OMENDB_F32, vector) == OMENDB_OK)
            work->model.value[c][id] = model_value(vector);
    omendb_rows_close(rows);
    for (id = 0; id < ENUMERATE_IDS; id++)
        work->model.patch[c][id] =
            work->model.value[c][id] == 0 ? 0 : workload_load_patch(work, c, id);
    return status == OMENDB_DONE ? OMENDB_OK : status;
}

static int workload_load_limits(struct workload *work, int c)
{
    omendb_limits limits = OMENDB_LIMITS_INIT;
    const int status = omendb_collection_get_limits(work->collections[c], &limits);
    work->model.limits[c] = limits.records == 0 ? 0 : limits.records - 1000000;
    return status;
}

static int workload_load_fields(struct workload *work, int c)
{
    char name[32];
    unsigned long long value = 0;
    omendb_field field = OMENDB_FIELD_INIT;
    int status = OMENDB_OK;
    for (size_t i = 0; status == OMENDB_OK; i++) {
        status = omendb_collection_field(work->collections[c], i, &field, name, sizeof name);
        if (status == OMENDB_OK)
            sscanf(name, "unused %llu", &value);
    }
    work->model.declared[c] = value;
    return status == OMENDB_DONE ? OMENDB_OK : status;
}

static void workload_load_prepared(struct workload *work)
{
    char name[OMENDB_PREPARED_NAME_MAX + 1];
    int state, slot, present;
    unsigned long long serial;
    for (size_t i = 0; omendb_prepared_name(work->db, i, name, sizeof name, &state) == OMENDB_OK;
         i++) {
        if (sscanf(name, "move-%d-%llu-%d", &slot, &serial, &present) != 3 || slot < 0 ||
            slot >= ENUMERATE_PREPARED) {
            workload_expect(work, OMENDB_CORRUPT, "an unknown prepared transaction");
            continue;
        }
        work->model.prepared[slot].state = state;
        work->model.prepared[slot].serial = serial;
        work->model.prepared[slot].present = present;
    }
}

/* Reads what the recovered database holds into the model. */
static int workload_load(struct workload *work)
{
    const struct model known = work->model;
    const int by_id = support_below(&work->random, 4) == 0;
    memset(&work->model, 0, sizeof work->model);
    work->model.next_value = known.next_value;
    workload_load_prepared(work);
    for (int c = 0; c < ENUMERATE_COLLECTIONS; c++) {
        int status =
            omendb_collection_open(work->db, enumerate_names[c], NULL, &work->collections[c]);
        if (status == OMENDB_NOTFOUND)
            continue;
        work->model.present[c] = 1;
        if (status == OMENDB_OK)
            status = workload_load_limits(work, c);
        if (status == OMENDB_OK)
            status = workload_load_fields(work, c);
        if (status == OMENDB_OK)
            status = workload_load_collection(work, c, by_id);
        if (status != OMENDB_OK)
            return status;
    }
    return OMENDB_OK;
}

/* Half of the time the disk is full just then, so that what was replayed cannot be written to a
 * segment, and is shown all the same. */
static int workload_reopen_after_death(struct workload *work)
{
    int status = OMENDB_FULL;
    if (support_below(&work->random, 2) == 0) {
        crash_faults_begin(work->fs, CRASH_CALL_WRITE | CRASH_CALL_SPACE,
                           1 + support_below(&work->random, 6), 0, OMENDB_FULL, ENOSPC);
        status = workload_open(work, "/db", 1, &work->db);
    }
    crash_faults_begin(work->fs, 0, 0, 0, 0, 0);
    return status == OMENDB_FULL ? workload_open(work, "/db", 1, &work->db) : status;
}

/* Kills the process inside a commit or a checkpoint, opens again on what it left, unsynced as it
 * is, and goes on from there. What is shown then counts as acknowledged. */
static void workload_die(struct workload *work)
{
    struct history *history = work->history;
    const int c = workload_pick(work);
    const size_t before = history->count - 1;
    uint64_t digest = 0;
    if (work->broken)
        return;
    workload_end_snapshots(work, 1);
    workload_close_reader(work);
    crash_die_at(work->fs, 1 + support_below(&work->random, 9));
    workload_put(work, NULL, c, support_below(&work->random, ENUMERATE_FREE_IDS), 3);
    if (!work->broken)
        omendb_checkpoint(work->db);
    workload_close_collections(work);
    omendb_close(work->db);
    work->db = NULL;
    work->broken = 0;
    if (!workload_expect(work, workload_reopen_after_death(work), "open after a death") ||
        !workload_expect(work, support_digest(work->db, NULL, &digest), "read after a death"))
        return;
    if (digest != history->digests[before] && digest != history->digests[history->count - 1])
        workload_expect(work, OMENDB_CORRUPT, "another state after a death");
    history_add(history, digest);
    crash_mark(work->fs, MARK_ATTEMPT, history->count - 1);
    workload_settle(work);
    workload_expect(work, workload_load(work), "reading all records after a death");
}

static void workload_checkpoint(struct workload *work)
{
    if (workload_expect(work, omendb_checkpoint(work->db), "checkpoint"))
        workload_settle(work);
}

static void workload_optimize(struct workload *work)
{
    workload_expect(work, omendb_optimize(work->db, NULL, NULL), "optimize");
}

/* 0: none are made. Their syncs are about bytes that the contents have no more. */
static int enumerate_purges = 1;

/* Of all, or of one collection. What still reads deleted records stands in its way, which is told;
 * the contents stay as they are in any case. */
static void workload_purge(struct workload *work)
{
    const int c = (int)support_below(&work->random, ENUMERATE_COLLECTIONS);
    const int all = !work->model.present[c];
    if (!enumerate_purges)
        return;
    const int status = omendb_purge(work->db, all ? NULL : enumerate_names[c]);
    int reading = work->reader != NULL;
    for (int i = 0; i < ENUMERATE_SNAPSHOTS; i++)
        reading |= work->snapshots[i] != NULL;
    if (status != OMENDB_BUSY || !reading)
        workload_expect(work, status, "purge");
}

static void workload_work(struct workload *work)
{
    workload_expect(work, omendb_work(work->db, 200 + support_below(&work->random, 2000), NULL),
                    "work");
}

static void workload_create_or_drop(struct workload *work)
{
    const int c = (int)support_below(&work->random, ENUMERATE_COLLECTIONS);
    if (!work->model.present[c])
        workload_create(work, c);
    else if (!model_is_locked(&work->model, c))
        workload_drop(work, c);
}

static void workload_create_missing(struct workload *work)
{
    const int c = (int)support_below(&work->random, ENUMERATE_COLLECTIONS);
    if (!work->model.present[c])
        workload_create(work, c);
}

static void workload_put_some(struct workload *work, uint64_t count)
{
    const int c = workload_pick(work);
    if (!work->broken)
        workload_put(work, NULL, c, support_below(&work->random, ENUMERATE_FREE_IDS), count);
}

static void workload_put_one(struct workload *work)
{
    workload_put_some(work, 1);
}

static void workload_put_many(struct workload *work)
{
    workload_put_some(work, 2 + support_below(&work->random, 30));
}

static void workload_delete_some(struct workload *work, uint64_t count)
{
    const int c = workload_pick(work);
    if (!work->broken)
        workload_delete(work, NULL, c, support_below(&work->random, ENUMERATE_FREE_IDS), count);
}

static void workload_delete_one(struct workload *work)
{
    workload_delete_some(work, 1);
}

static void workload_delete_many(struct workload *work)
{
    workload_delete_some(work, 2 + support_below(&work->random, 30));
}

static void workload_edit_one(struct workload *work)
{
    const int c = workload_pick(work);
    if (!work->broken)
        workload_edit(work, NULL, c, support_below(&work->random, ENUMERATE_FREE_IDS));
}

static void workload_limit_one(struct workload *work)
{
    const int c = workload_pick(work);
    if (work->broken)
        return;
    work->model.limits[c] = support_below(&work->random, 4) * (1 + work->model.next_value);
    const omendb_limits limits = model_limits(work->model.limits[c]);
    workload_attempt(work);
    if (workload_expect(work, omendb_collection_set_limits(work->collections[c], &limits),
                        "limits"))
        workload_acknowledge(work);
}

static void workload_declare_one(struct workload *work)
{
    const int c = workload_pick(work);
    char name[32];
    omendb_field fields[2];
    if (work->broken)
        return;
    work->model.declared[c] = support_below(&work->random, 4) * (1 + work->model.next_value);
    const size_t count = model_declare(work->model.declared[c], fields, name);
    workload_attempt(work);
    if (workload_expect(work, omendb_collection_declare(work->collections[c], count, fields, 0),
                        "declaring fields"))
        workload_acknowledge(work);
}

/* What a workload does, and how often. An operation that changes the contents notes them with
 * workload_attempt before its call and workload_acknowledge after it. */
static const struct {
    uint64_t weight;
    void (*run)(struct workload *work);
} workload_operations[] = {
    {20, workload_put_one},       {23, workload_put_many},
    {14, workload_delete_one},    {8, workload_delete_many},
    {10, workload_transaction},   {2, workload_create_or_drop},
    {5, workload_create_missing}, {4, workload_snapshot},
    {4, workload_read_beside},    {2, workload_fail_checkpoint},
    {2, workload_checkpoint},     {2, workload_optimize},
    {7, workload_work},           {3, workload_reopen},
    {2, workload_backup},         {3, workload_die},
    {6, workload_two_phases},     {1, workload_purge},
    {10, workload_edit_one},      {3, workload_limit_one},
    {3, workload_declare_one},
};

#define WORKLOAD_OPERATIONS (sizeof workload_operations / sizeof workload_operations[0])

static void workload_step(struct workload *work)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < WORKLOAD_OPERATIONS; i++)
        sum += workload_operations[i].weight;
    uint64_t dice = support_below(&work->random, sum);
    size_t i = 0;
    for (; dice >= workload_operations[i].weight; i++)
        dice -= workload_operations[i].weight;
    workload_operations[i].run(work);
}

/* Gives all handles back. */
static int workload_close(struct workload *work, int compare)
{
    workload_end_snapshots(work, compare);
    workload_close_collections(work);
    workload_close_reader(work);
    const int status = omendb_close(work->db);
    work->db = NULL;
    return status;
}

/* ------------------------------------------------------------------------------------------------
 * the campaign */

/* What is counted, for a table and for the parent process. */
struct campaign_counts {
    uint64_t images, closely, recovered_older, crashed_again, backups_checked, readers, salvaged,
        failures;
    char deepest[80]; /* what went wrong first, for the table */
};

struct campaign {
    struct campaign_counts counts;
    uint64_t failures_allowed; /* stops at so many */
    const char *omitted;       /* class of syncs left out */
    struct support_random random;
    uint64_t seed;
    uint32_t sync; /* of the recorded workload */
    int quiet;
};

/* What of the history an image may hold. */
struct bounds {
    size_t acknowledged, attempted;
    /* Of each backup: the state that it had, and the one that it has or is about to get. */
    size_t backups[ENUMERATE_BACKUPS], backups_next[ENUMERATE_BACKUPS];
    int backup_count; /* finished once */
};

static void campaign_fail(struct campaign *campaign, const char *what, const char *detail)
{
    if (campaign->counts.failures++ == 0)
        snprintf(campaign->counts.deepest, sizeof campaign->counts.deepest, "%s", what);
    if (!campaign->quiet)
        fprintf(stderr, "FAILED: %s: %s\n", what, detail);
}

/* The index of the digest within the bounds; SIZE_MAX and a failure where it is not. */
static size_t campaign_match(struct campaign *campaign, const struct history *history,
                             const struct bounds *bounds, uint64_t digest)
{
    char text[160];
    for (size_t i = bounds->attempted + 1; i-- > bounds->acknowledged;)
        if (history->digests[i] == digest)
            return i;
    for (size_t i = 0; i < history->count; i++)
        if (history->digests[i] == digest) {
            snprintf(text, sizeof text, "state %zu of %zu..%zu", i, bounds->acknowledged,
                     bounds->attempted);
            campaign_fail(campaign,
                          i < bounds->acknowledged ? "acknowledged commits are lost"
                                                   : "a commit from the future",
                          text);
            return SIZE_MAX;
        }
    snprintf(text, sizeof text, "expected one of the states %zu..%zu", bounds->acknowledged,
             bounds->attempted);
    campaign_fail(campaign, "a state that never was", text);
    return SIZE_MAX;
}

/* What a backup holds; 0: it cannot be read, or check finds problems. */
static int campaign_read_backup(struct campaign *campaign, struct crash_fs *image, const char *path,
                                uint64_t *digest)
{
    struct workload work = {.fs = image};
    omendb *db = NULL;
    const int good = workload_open(&work, path, 1, &db) == OMENDB_OK &&
                     support_digest(db, NULL, digest) == OMENDB_OK &&
                     support_check(db) == OMENDB_OK;
    if (!good)
        campaign_fail(campaign, "a finished backup cannot be read", omendb_errmsg());
    omendb_close(db);
    campaign->counts.backups_checked++;
    return good;
}

/* Brings a backup up to date after the crash. */
static void campaign_renew_backup(struct campaign *campaign, struct crash_fs *image,
                                  const char *path)
{
    struct workload work = {.fs = image};
    omendb *db = NULL;
    uint64_t expected = 0, digest = 0;
    const int good = workload_open(&work, "/db", 1, &db) == OMENDB_OK &&
                     support_digest(db, NULL, &expected) == OMENDB_OK &&
                     omendb_backup(db, path) == OMENDB_OK;
    if (!good)
        campaign_fail(campaign, "a backup cannot be brought up to date", omendb_errmsg());
    omendb_close(db);
    if (good && campaign_read_backup(campaign, image, path, &digest) && digest != expected)
        campaign_fail(campaign, "a backup after a crash holds another state", path);
}

/* Opens a finished backup of the image: itself, or what another one on top of it makes of it; or
 * goes on with a first one, of which a crash left nothing, a part, or all. */
static void campaign_check_backup(struct campaign *campaign, struct crash_fs *image,
                                  const struct history *history, const struct bounds *bounds)
{
    char path[32];
    uint64_t digest = 0;
    const int number = (int)support_below(&campaign->random, (uint64_t)bounds->backup_count + 1);
    snprintf(path, sizeof path, "/backup-%d", number);
    if (number == bounds->backup_count || support_below(&campaign->random, 2) == 0)
        campaign_renew_backup(campaign, image, path);
    else if (campaign_read_backup(campaign, image, path, &digest) &&
             digest != history->digests[bounds->backups[number]] &&
             digest != history->digests[bounds->backups_next[number]])
        campaign_fail(campaign, "a finished backup holds another state", path);
}

/* Where nothing is damaged, what is salvaged of an image is what recovery shows of it. Behind a
 * torn commit salvage finds more than recovery does, and tells it. */
static void campaign_salvage(struct campaign *campaign, struct crash_fs *image, uint64_t recovered)
{
    struct workload work = {.fs = image};
    const omendb_options options = workload_options(&work);
    omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
    omendb *db = NULL;
    uint64_t digest = 0;
    const int good = omendb_salvage("/db", "/saved", &options, NULL, NULL, &result) == OMENDB_OK &&
                     workload_open(&work, "/saved", 1, &db) == OMENDB_OK &&
                     support_digest(db, NULL, &digest) == OMENDB_OK &&
                     support_check(db) == OMENDB_OK;
    if (!good)
        campaign_fail(campaign, "cannot be salvaged", omendb_errmsg());
    else if (result.problems == 0 && digest != recovered)
        campaign_fail(campaign, "what is salvaged differs from what is recovered", "");
    campaign->counts.salvaged += good && result.problems == 0;
    omendb_close(db);
}

static void campaign_walk(struct campaign *campaign, const struct crash_fs *fs,
                          const struct crash_fs *start, const struct history *history,
                          struct bounds bounds, uint64_t images, const struct model *known,
                          int depth);

/* Goes on with a recovered database: what it shows is acknowledged now. */
static void campaign_go_on(struct campaign *campaign, struct workload *work,
                           struct history *history, uint64_t digest, int steps)
{
    history_add(history, digest);
    crash_mark(work->fs, MARK_ATTEMPT, history->count - 1);
    crash_mark(work->fs, MARK_ACKNOWLEDGED, history->count - 1);
    if (!workload_expect(work, workload_load(work), "reading all records"))
        return;
    if (model_digest(&work->model) != digest) {
        campaign_fail(campaign, "get and scan differ", "after recovery");
        return;
    }
    for (int i = 0; i < steps && !work->broken; i++)
        workload_step(work);
    uint64_t now = 0;
    if (!work->broken && (support_digest(work->db, NULL, &now) != OMENDB_OK ||
                          now != history->digests[history->count - 1]))
        campaign_fail(campaign, "work after recovery went wrong", omendb_errmsg());
}

/* A reader on the disk as the crash left it: it writes nothing, and what it shows is legal and is
 * not taken back by the writer that recovers. Returns the state; SIZE_MAX: it failed, or the
 * database was not made yet. */
static size_t campaign_read_image(struct campaign *campaign, struct workload *work,
                                  const struct history *history, const struct bounds *bounds)
{
    uint64_t digest = 0;
    const size_t events = work->fs->event_count;
    size_t found = SIZE_MAX;
    const int status = workload_open_reader(work, &work->reader);
    campaign->counts.readers++;
    if (status == OMENDB_OK && support_digest(work->reader, NULL, &digest) == OMENDB_OK)
        found = campaign_match(campaign, history, bounds, digest);
    else if (bounds->acknowledged > 0)
        campaign_fail(campaign, "cannot be opened read-only", omendb_errmsg());
    for (size_t i = events; i < work->fs->event_count; i++)
        if (work->fs->events[i].kind != CRASH_SYNC && work->fs->events[i].kind != CRASH_MARK &&
            work->fs->events[i].kind != CRASH_SYNC_DIRECTORY)
            campaign_fail(campaign, "a reader changed a file", "");
    workload_close_reader(work);
    return found;
}

/* Opens an image and compares it. Returns the state that it holds; SIZE_MAX: it failed. */
static size_t campaign_recover(struct campaign *campaign, struct workload *work,
                               const struct history *history, const struct bounds *bounds,
                               uint64_t *digest)
{
    size_t read = SIZE_MAX;
    if (support_below(&campaign->random, 8) == 0)
        read = campaign_read_image(campaign, work, history, bounds);
    if (workload_open(work, "/db", 0, &work->db) != OMENDB_OK) {
        campaign_fail(campaign, "cannot be opened", omendb_errmsg());
        return SIZE_MAX;
    }
    if (support_digest(work->db, NULL, digest) != OMENDB_OK) {
        campaign_fail(campaign, "cannot be read", omendb_errmsg());
        return SIZE_MAX;
    }
    const size_t found = campaign_match(campaign, history, bounds, *digest);
    if (read != SIZE_MAX && found != SIZE_MAX && found < read)
        campaign_fail(campaign, "a reader was shown more than recovery kept", "");
    return found;
}

/* A recovered image looked at closely: omendb_check, then `steps` of work. */
static void campaign_look(struct campaign *campaign, struct workload *work, struct history *own,
                          uint64_t digest, int steps)
{
    campaign->counts.closely++;
    if (support_check(work->db) != OMENDB_OK)
        campaign_fail(campaign, "check finds problems after recovery", omendb_errmsg());
    campaign_go_on(campaign, work, own, digest, steps);
    if (!work->broken && support_check(work->db) != OMENDB_OK)
        campaign_fail(campaign, "check finds problems after going on", omendb_errmsg());
    if (work->broken)
        campaign_fail(campaign, "cannot be worked on", omendb_errmsg());
}

/* Recovers one image and compares it; works on with a part of them, and crashes some again. */
static void campaign_try(struct campaign *campaign, struct crash_fs *image,
                         const struct history *history, const struct bounds *bounds,
                         const struct model *known, int depth)
{
    struct history own = {0};
    struct workload work = {.fs = image, .history = &own, .model = *known};
    const uint64_t dice = support_below(&campaign->random, 8);
    const int again = depth == 0 && dice == 0, closely = dice < 2;
    struct crash_fs *start = again ? crash_fs_copy(image) : NULL, *saved = NULL;
    if (support_below(&campaign->random, 16) == 0)
        saved = crash_fs_copy(image);
    uint64_t digest = 0;
    campaign->counts.images++;
    work.random.state = support_next(&campaign->random);
    work.backups = -1;
    work.io = support_below(&work.random, 4) == 0 ? OMENDB_IO_PREAD : OMENDB_IO_MAP;
    for (size_t i = bounds->acknowledged; i <= bounds->attempted && closely; i++)
        history_add(&own, history->digests[i]);
    const struct bounds before = {.acknowledged = 0, .attempted = own.count - 1};
    const size_t found = campaign_recover(campaign, &work, history, bounds, &digest);
    if (found != SIZE_MAX && saved != NULL && bounds->acknowledged > 0)
        campaign_salvage(campaign, saved, digest);
    crash_fs_destroy(saved);
    campaign->counts.recovered_older += found != SIZE_MAX && found < bounds->attempted;
    if (found != SIZE_MAX && closely)
        campaign_look(campaign, &work, &own, digest, again ? 6 : 3);
    if (workload_close(&work, !work.broken) != OMENDB_OK && !work.broken)
        campaign_fail(campaign, "cannot be closed", omendb_errmsg());
    if (found != SIZE_MAX && depth == 0 && support_below(&campaign->random, 4) == 0)
        campaign_check_backup(campaign, image, history, bounds);
    if (again && found != SIZE_MAX && !work.broken) {
        campaign->counts.crashed_again++;
        campaign_walk(campaign, image, start, &own, before, 6, &work.model, depth + 1);
    }
    crash_fs_destroy(start);
    free(own.digests);
}

static int campaign_is_over(const struct campaign *campaign)
{
    return campaign->counts.failures >= campaign->failures_allowed;
}

static void bounds_note(struct bounds *bounds, const struct crash_event *event)
{
    if (event->kind != CRASH_MARK)
        return;
    if (event->size == MARK_ATTEMPT)
        bounds->attempted = (size_t)event->offset;
    if (event->size == MARK_ACKNOWLEDGED)
        bounds->acknowledged = (size_t)event->offset;
    for (int i = 0; i < ENUMERATE_BACKUPS; i++) {
        if (event->size == (uint64_t)MARK_BACKUP_ATTEMPT + (uint64_t)i)
            bounds->backups_next[i] = (size_t)event->offset;
        if (event->size != (uint64_t)MARK_BACKUP + (uint64_t)i)
            continue;
        bounds->backups[i] = (size_t)event->offset;
        bounds->backup_count += i == bounds->backup_count;
    }
}

static void campaign_image(struct campaign *campaign, const struct crash_replay *replay,
                           const struct history *history, const struct bounds *bounds,
                           const struct model *known, int depth)
{
    static const char *const lucks[CRASH_LUCKS] = {
        "nothing", "everything", "random", "all but one", "only one", "names only", "bytes only"};
    const uint64_t failures = campaign->counts.failures;
    uint64_t luck = support_below(&campaign->random, CRASH_LUCKS + 4);
    if (luck >= CRASH_LUCKS)
        luck = CRASH_RANDOM;
    struct crash_fs *image = crash_image(replay, (enum crash_luck)luck, &campaign->random);
    campaign_try(campaign, image, history, bounds, known, depth);
    crash_fs_destroy(image);
    if (campaign->counts.failures != failures && !campaign->quiet)
        fprintf(stderr, "    seed %llu, event %zu of %zu, depth %d, arrived: %s\n",
                (unsigned long long)campaign->seed, replay->position, replay->fs->event_count,
                depth, lucks[luck]);
}

/* Number of events after which an image is of interest: all; with a sync left out those where that
 * shows. */
static size_t campaign_places(const struct campaign *campaign, const struct crash_fs *fs,
                              const struct crash_fs *start)
{
    struct crash_replay replay;
    size_t places = 0;
    crash_replay_begin(&replay, fs, start, campaign->omitted);
    while (replay.position < fs->event_count) {
        crash_replay_step(&replay);
        places += campaign->omitted == NULL || replay.tainted > 0;
    }
    crash_replay_end(&replay);
    return places;
}

/* About `images` images over the whole log. */
static void campaign_walk(struct campaign *campaign, const struct crash_fs *fs,
                          const struct crash_fs *start, const struct history *history,
                          struct bounds bounds, uint64_t images, const struct model *known,
                          int depth)
{
    struct crash_replay replay;
    const size_t places = campaign_places(campaign, fs, start);
    crash_replay_begin(&replay, fs, start, campaign->omitted);
    while (places > 0 && replay.position < fs->event_count && !campaign_is_over(campaign)) {
        const struct crash_event *event = crash_replay_step(&replay);
        bounds_note(&bounds, event);
        if (campaign->omitted != NULL && replay.tainted == 0)
            continue;
        uint64_t here =
            images / places + (support_below(&campaign->random, places) < images % places);
        while (here-- > 0 && !campaign_is_over(campaign))
            campaign_image(campaign, &replay, history, &bounds, known, depth);
    }
    crash_replay_end(&replay);
}

/* Runs the workload once on a fresh disk. NULL where the library failed without any fault. */
static struct crash_fs *campaign_record(struct workload *work, struct history *history,
                                        uint64_t seed, int steps, uint32_t sync)
{
    memset(work, 0, sizeof *work);
    work->sync = sync;
    work->fs = crash_fs_create(1);
    work->history = history;
    work->random.state = seed;
    work->io = seed % 4 == 3 ? OMENDB_IO_PREAD : OMENDB_IO_MAP;
    history_add(history, 0);
    if (workload_expect(work, workload_open(work, "/db", 0, &work->db), "first open"))
        workload_create(work, 0);
    for (int i = 0; i < steps && !work->broken; i++)
        workload_step(work);
    workload_expect(work, workload_close(work, 1), "last close");
    if (!work->broken)
        return work->fs;
    crash_fs_destroy(work->fs);
    return NULL;
}

/* One workload and its share of images. Returns the file system for its sites; NULL on failure. */
static struct crash_fs *campaign_run(struct campaign *campaign, uint64_t seed, uint64_t images,
                                     int steps)
{
    struct history history = {0};
    static struct workload work;
    const struct bounds bounds = {0};
    char text[256];
    struct crash_fs *fs = campaign_record(&work, &history, seed, steps, campaign->sync);
    campaign->seed = seed;
    campaign->random.state = seed ^ UINT64_C(0x5eed);
    if (fs == NULL) {
        snprintf(text, sizeof text, "seed %llu: %.200s", (unsigned long long)seed, omendb_errmsg());
        campaign_fail(campaign, "the workload itself failed", text);
    } else {
        campaign_walk(campaign, fs, NULL, &history, bounds, images, &work.model, 0);
    }
    free(history.digests);
    return fs;
}

static void counts_add(struct campaign_counts *sum, const struct campaign_counts *one)
{
    sum->images += one->images;
    sum->closely += one->closely;
    sum->recovered_older += one->recovered_older;
    sum->crashed_again += one->crashed_again;
    sum->backups_checked += one->backups_checked;
    sum->readers += one->readers;
    sum->salvaged += one->salvaged;
    sum->failures += one->failures;
}

static void counts_print(const struct campaign_counts *counts)
{
    printf("  %llu images: %llu looked at closely, %llu held an older state than the last one "
           "attempted, %llu crashed again, %llu opened read-only, %llu backups opened, %llu "
           "salvaged without a problem, %llu failures\n",
           (unsigned long long)counts->images, (unsigned long long)counts->closely,
           (unsigned long long)counts->recovered_older, (unsigned long long)counts->crashed_again,
           (unsigned long long)counts->readers, (unsigned long long)counts->backups_checked,
           (unsigned long long)counts->salvaged, (unsigned long long)counts->failures);
    fflush(stdout);
}

static uint64_t enumerate_images, enumerate_seed, enumerate_failures;
static int enumerate_keep_going;

/* One workload: what is told to the process that takes it. */
struct shard_orders {
    uint64_t seed, images;
    uint32_t sync;
};

static int shard_run(uint64_t shard, void *result, const void *argument)
{
    const struct shard_orders *orders = argument;
    struct campaign campaign = {.failures_allowed = enumerate_failures, .sync = orders->sync};
    /* Of eight images one crashes again, into six. */
    crash_fs_destroy(
        campaign_run(&campaign, orders->seed + shard, orders->images * 4 / 7, ENUMERATE_STEPS));
    memcpy(result, &campaign.counts, sizeof campaign.counts);
    return (int)(campaign.counts.failures < 1000 ? campaign.counts.failures : 1000);
}

/* About `images` images, in workloads of which each is one shard. Returns the failures. */
static int enumerate_run(uint64_t images, uint64_t seed, uint32_t sync, struct campaign_counts *sum)
{
    const uint64_t each = images < ENUMERATE_IMAGES ? images : ENUMERATE_IMAGES;
    const struct shard_orders orders = {seed, each, sync};
    const uint64_t shards = (images + each - 1) / each;
    struct campaign_counts *counts = parallel_memory(shards * sizeof *counts);
    memset(sum, 0, sizeof *sum);
    const int failures =
        parallel_run(shards, !enumerate_keep_going, shard_run, sizeof *counts, counts, &orders);
    for (uint64_t i = 0; i < shards; i++)
        counts_add(sum, &counts[i]);
    munmap(counts, shards * sizeof *counts);
    counts_print(sum);
    return failures;
}

TEST(every_crash_leaves_a_prefix_with_all_that_was_acknowledged)
{
    struct campaign_counts counts;
    CHECK_EQ_INT(enumerate_run(enumerate_images, enumerate_seed, OMENDB_SYNC_FULL, &counts), 0);
    CHECK(counts.images >= enumerate_images / 2);
}

/* What is lost then are the newest commits, whole ones, and none from before the last checkpoint.
 */
TEST(without_a_sync_of_commits_a_crash_leaves_a_prefix_since_the_checkpoint)
{
    struct campaign_counts counts;
    CHECK_EQ_INT(enumerate_run(enumerate_images / 8 + 1, enumerate_seed + UINT64_C(1000000000),
                               OMENDB_SYNC_NORMAL, &counts),
                 0);
    CHECK(counts.recovered_older > counts.images / 20);
}

/* ------------------------------------------------------------------------------------------------
 * writers at once: group commit, and commits while the log is rotated */

#define CONCURRENT_WRITERS 3
#define CONCURRENT_BATCH   6
#define CONCURRENT_COMMITS 400

enum { MARK_WRITER_ATTEMPT = 16, MARK_WRITER_ACKNOWLEDGED = 32 };

struct concurrent_writer {
    struct crash_fs *fs;
    omendb_collection *collection;
    uint64_t number, commits;
    int status;
};

/* What the log says of each writer; what a commit of one needs of the others: those that were
 * acknowledged before it. */
struct concurrent_bounds {
    uint64_t attempted[CONCURRENT_WRITERS], acknowledged[CONCURRENT_WRITERS];
    uint64_t needs[CONCURRENT_WRITERS][CONCURRENT_COMMITS + 1][CONCURRENT_WRITERS];
};

static int concurrent_open(struct crash_fs *fs, int32_t threads, omendb **db,
                           omendb_collection **collection)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.vfs = &fs->vfs;
    options.threads = threads;
    options.wal_limit = 16 * 1024;
    options.tail_limit = 64 * 1024;
    schema.dim = 4;
    schema.M = 4;
    schema.ef_construction = 16;
    const int status = omendb_open("/db", &options, db);
    return status != OMENDB_OK ? status
                               : omendb_collection_open_or_create(*db, "c", &schema, collection);
}

/* Commit n puts n into all records of the writer. */
static void *concurrent_write(void *argument)
{
    struct concurrent_writer *writer = argument;
    float vectors[CONCURRENT_BATCH * 4] = {0};
    uint64_t ids[CONCURRENT_BATCH];
    for (uint64_t n = 1; n <= writer->commits && writer->status == OMENDB_OK; n++) {
        for (uint64_t i = 0; i < CONCURRENT_BATCH; i++) {
            ids[i] = writer->number * 100 + i;
            vectors[i * 4] = (float)n;
        }
        crash_mark(writer->fs, MARK_WRITER_ATTEMPT + writer->number, n);
        writer->status = omendb_put_batch(writer->collection, NULL, CONCURRENT_BATCH, ids, vectors,
                                          OMENDB_F32, NULL);
        if (writer->status == OMENDB_OK)
            crash_mark(writer->fs, MARK_WRITER_ACKNOWLEDGED + writer->number, n);
    }
    return NULL;
}

/* Records one workload; NULL where a call failed. */
static struct crash_fs *concurrent_record(uint64_t commits)
{
    struct crash_fs *fs = crash_fs_create(1);
    struct concurrent_writer writers[CONCURRENT_WRITERS];
    pthread_t threads[CONCURRENT_WRITERS];
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int good = concurrent_open(fs, 1, &db, &collection) == OMENDB_OK;
    for (uint64_t i = 0; i < CONCURRENT_WRITERS && good; i++) {
        writers[i] = (struct concurrent_writer){fs, collection, i, commits, OMENDB_OK};
        good = pthread_create(&threads[i], NULL, concurrent_write, &writers[i]) == 0;
    }
    for (int i = 0; i < 6 && good; i++)
        good = (i == 5 ? omendb_optimize(db, NULL, NULL) : omendb_checkpoint(db)) == OMENDB_OK;
    for (size_t i = 0; i < CONCURRENT_WRITERS && good; i++) {
        pthread_join(threads[i], NULL);
        good = writers[i].status == OMENDB_OK;
    }
    omendb_collection_close(collection);
    good = omendb_close(db) == OMENDB_OK && good;
    if (good)
        return fs;
    fprintf(stderr, "  writers at once: %s\n", omendb_errmsg());
    return NULL;
}

static void concurrent_note(struct concurrent_bounds *bounds, const struct crash_event *event)
{
    if (event->kind != CRASH_MARK)
        return;
    for (uint64_t w = 0; w < CONCURRENT_WRITERS; w++) {
        if (event->size == MARK_WRITER_ACKNOWLEDGED + w)
            bounds->acknowledged[w] = event->offset;
        if (event->size != MARK_WRITER_ATTEMPT + w)
            continue;
        bounds->attempted[w] = event->offset;
        memcpy(bounds->needs[w][event->offset], bounds->acknowledged, sizeof bounds->acknowledged);
    }
}

/* The commit that a writer's records are of; UINT64_MAX: not all of one. */
static uint64_t concurrent_state(omendb_collection *collection, uint64_t writer)
{
    float vector[4];
    uint64_t state = 0, seen = 0;
    for (uint64_t i = 0; i < CONCURRENT_BATCH; i++) {
        const int status = omendb_get(collection, NULL, writer * 100 + i, OMENDB_F32, vector);
        if (status == OMENDB_NOTFOUND)
            continue;
        if (status != OMENDB_OK || (seen++ > 0 && (uint64_t)vector[0] != state))
            return UINT64_MAX;
        state = (uint64_t)vector[0];
    }
    return seen == 0 || seen == CONCURRENT_BATCH ? state : UINT64_MAX;
}

static void concurrent_compare(struct campaign *campaign, omendb_collection *collection,
                               const struct concurrent_bounds *bounds)
{
    uint64_t states[CONCURRENT_WRITERS];
    for (uint64_t w = 0; w < CONCURRENT_WRITERS; w++) {
        states[w] = concurrent_state(collection, w);
        if (states[w] == UINT64_MAX)
            campaign_fail(campaign, "half a batch", omendb_errmsg());
        else if (states[w] < bounds->acknowledged[w])
            campaign_fail(campaign, "acknowledged commits are lost", "writers at once");
        else if (states[w] > bounds->attempted[w])
            campaign_fail(campaign, "a commit from the future", "writers at once");
    }
    for (size_t w = 0; w < CONCURRENT_WRITERS && campaign->counts.failures == 0; w++)
        for (size_t other = 0; other < CONCURRENT_WRITERS; other++)
            if (states[other] < bounds->needs[w][states[w]][other])
                campaign_fail(campaign, "a hole: a commit without those before it", "");
}

static void concurrent_try(struct campaign *campaign, const struct crash_replay *replay,
                           const struct concurrent_bounds *bounds)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    const uint64_t luck = support_below(&campaign->random, CRASH_LUCKS);
    struct crash_fs *image = crash_image(replay, (enum crash_luck)luck, &campaign->random);
    campaign->counts.images++;
    if (concurrent_open(image, 0, &db, &collection) != OMENDB_OK) {
        campaign_fail(campaign, "cannot be opened", omendb_errmsg());
    } else {
        concurrent_compare(campaign, collection, bounds);
        if (support_check(db) != OMENDB_OK)
            campaign_fail(campaign, "check finds problems", omendb_errmsg());
    }
    omendb_collection_close(collection);
    omendb_close(db);
    crash_fs_destroy(image);
}

TEST(crashes_of_writers_at_once_leave_a_prefix_of_whole_batches)
{
    static struct concurrent_bounds bounds;
    struct campaign campaign = {.failures_allowed = 5};
    const uint64_t images = 500 + enumerate_images / 50;
    struct crash_fs *fs = concurrent_record(CONCURRENT_COMMITS);
    struct crash_replay replay;
    memset(&bounds, 0, sizeof bounds);
    campaign.random.state = enumerate_seed;
    CHECK(fs != NULL);
    crash_replay_begin(&replay, fs, NULL, NULL);
    while (replay.position < fs->event_count && !campaign_is_over(&campaign)) {
        concurrent_note(&bounds, crash_replay_step(&replay));
        if (support_below(&campaign.random, fs->event_count) < images)
            concurrent_try(&campaign, &replay, &bounds);
    }
    crash_replay_end(&replay);
    crash_fs_destroy(fs);
    counts_print(&campaign.counts);
    CHECK_EQ_INT(campaign.counts.failures, 0);
    CHECK(campaign.counts.images > 0);
}

/* ------------------------------------------------------------------------------------------------
 * each sync is necessary */

struct site_table {
    char names[CRASH_SITES][256];
    size_t count;
};

static void sites_add(struct site_table *table, const char *name)
{
    for (size_t i = 0; i < table->count; i++)
        if (strcmp(table->names[i], name) == 0)
            return;
    if (table->count < CRASH_SITES)
        snprintf(table->names[table->count++], sizeof table->names[0], "%s", name);
}

static void sites_collect(struct site_table *table, uint64_t workloads)
{
    for (uint64_t i = 0; i < workloads; i++) {
        struct campaign campaign = {.failures_allowed = 1};
        struct crash_fs *fs = campaign_run(&campaign, enumerate_seed + i, 0, ENUMERATE_STEPS);
        for (uint32_t site = 0; fs != NULL && site < fs->site_count; site++)
            sites_add(table, fs->sites[site]);
        crash_fs_destroy(fs);
    }
}

/* One class of syncs left out, in more and more images, until that is seen. */
static int sites_try(uint64_t shard, void *result, const void *argument)
{
    const struct site_table *table = argument;
    struct campaign campaign = {.failures_allowed = 1, .omitted = table->names[shard], .quiet = 1};
    for (uint64_t w = 0; w < 12 && campaign.counts.failures == 0; w++)
        crash_fs_destroy(campaign_run(&campaign, enumerate_seed + w % 4, UINT64_C(150) << (w / 4),
                                      ENUMERATE_STEPS));
    memcpy(result, &campaign.counts, sizeof campaign.counts);
    return campaign.counts.failures == 0;
}

TEST(every_sync_is_necessary)
{
    static struct site_table table;
    table.count = 0;
    enumerate_purges = 0;
    sites_collect(&table, 4);
    CHECK(table.count > 0);
    struct campaign_counts *counts = parallel_memory(table.count * sizeof *counts);
    const int useless = parallel_run(table.count, 0, sites_try, sizeof *counts, counts, &table);
    printf("%-44s %8s  %s\n", "sync left out", "images", "what is seen");
    for (size_t i = 0; i < table.count; i++)
        printf("%-44s %8llu  %s\n", table.names[i], (unsigned long long)counts[i].images,
               counts[i].failures == 0 ? "NOTHING" : counts[i].deepest);
    munmap(counts, table.count * sizeof *counts);
    CHECK_EQ_INT(useless, 0);
}

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {
        every_crash_leaves_a_prefix_with_all_that_was_acknowledged,
        without_a_sync_of_commits_a_crash_leaves_a_prefix_since_the_checkpoint,
        crashes_of_writers_at_once_leave_a_prefix_of_whole_batches, every_sync_is_necessary};
    const int campaign_only = support_argument(argc, argv, "--images", 0) != 0;
    const int syncs_only = support_flag(argc, argv, "--omit-syncs");
    const uint64_t usual = support_scaled_instrumented(100000, 20000, 500);
    enumerate_images = support_argument(argc, argv, "--images", usual);
    enumerate_seed = support_argument(argc, argv, "--seed", support_seed(1));
    enumerate_keep_going = support_argument(argc, argv, "--keep-going", 0) != 0;
    enumerate_failures = enumerate_keep_going ? UINT64_MAX : 1;
    if (syncs_only)
        return test_run(1, argv, all + 3, 1, "every_sync_is_necessary");
    return test_run(1, argv, all, campaign_only ? 3 : 4,
                    "every_crash_leaves_a_prefix_with_all_that_was_acknowledged, "
                    "without_a_sync_of_commits_a_crash_leaves_a_prefix_since_the_checkpoint, "
                    "crashes_of_writers_at_once_leave_a_prefix_of_whole_batches, "
                    "every_sync_is_necessary");
}
