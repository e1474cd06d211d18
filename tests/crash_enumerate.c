/* crash_enumerate.c: what a database is after the power went, at every moment of a mixed workload.
 *
 * A workload of single records, batches, transactions over two collections, deletes, creations and
 * drops, checkpoints, merges, backups and reopenings runs on the recording file system of
 * crash_vfs.h, with limits so small that logs are rotated and segments merged every few commits.
 * Beside it a model is kept; after every commit the digest of all that it holds is noted in a
 * history.
 *
 * Then the log of the file system is walked. At each event disks are made as a crash might leave
 * them, and on each the database is opened: its digest must be that of a commit which is not older
 * than the last acknowledged one and not newer than the last attempted one, and omendb_check must
 * find nothing. Some images go on working, with a model of their own, and crash again, in recovery
 * or later. A finished backup must be there, whole.
 *
 * Invariant: threads = 0 and one seed make a run repeatable; a failure prints the seed, the event
 * and the kind of image.
 *
 *     crash_enumerate                         10,000 images, then every class of sync left out in
 * turn crash_enumerate --images N --seed S     a campaign crash_enumerate --omit-syncs only the
 * second part crash_enumerate --keep-going 1          counts failures instead of stopping at the
 * tenth */
#define _POSIX_C_SOURCE 200809L

#include "crash_vfs.h"
#include "support.h"
#include "test.h"

#define ENUMERATE_COLLECTIONS 3
#define ENUMERATE_IDS         160
#define ENUMERATE_BACKUPS     4

enum { MARK_ATTEMPT = 1, MARK_ACKNOWLEDGED = 2, MARK_BACKUP = 3 };

static const char *const enumerate_names[ENUMERATE_COLLECTIONS] = {"alpha", "beta", "gamma"};
static const uint32_t enumerate_dims[ENUMERATE_COLLECTIONS] = {16, 32, 5};
static const uint32_t enumerate_scalars[ENUMERATE_COLLECTIONS] = {OMENDB_F32, OMENDB_I8,
                                                                  OMENDB_F16};

/* ------------------------------------------------------------------------------------------------
 * the model: value of each id, 0 where it is absent */

struct model {
    int present[ENUMERATE_COLLECTIONS];
    uint64_t value[ENUMERATE_COLLECTIONS][ENUMERATE_IDS];
    uint64_t next_value;
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

static uint64_t model_digest(const struct model *model)
{
    float vector[SUPPORT_DIM_MAX];
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
        }
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
    int backups;
    int broken; /* a call failed that may not */
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

static int workload_open(struct workload *work, const char *path, int must_exist, omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.vfs = &work->fs->vfs;
    options.threads = 0;
    options.wal_limit = 24 * 1024;
    options.tail_limit = 6 * 1024;
    options.stall_timeout_ms = 1000;
    options.io = work->io;
    options.sync = work->sync;
    options.must_exist = (uint32_t)must_exist;
    return omendb_open(path, &options, db);
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

static void workload_create(struct workload *work, int c)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = enumerate_dims[c];
    schema.scalar = enumerate_scalars[c];
    schema.M = 4;
    schema.ef_construction = 16;
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
    omendb_collection_close(work->collections[c]);
    work->collections[c] = NULL;
    work->model.present[c] = 0;
    memset(work->model.value[c], 0, sizeof work->model.value[c]);
    workload_attempt(work);
    if (workload_expect(work, omendb_collection_drop(work->db, enumerate_names[c]), "drop"))
        workload_acknowledge(work);
}

/* Puts `count` records with ids from `first` on. */
static void workload_put(struct workload *work, omendb_txn *txn, int c, uint64_t first,
                         uint64_t count)
{
    float vectors[ENUMERATE_IDS * SUPPORT_DIM_MAX];
    uint64_t ids[ENUMERATE_IDS];
    const uint32_t dim = enumerate_dims[c];
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = (first + i) % ENUMERATE_IDS;
        work->model.value[c][ids[i]] = ++work->model.next_value;
        model_vector(work->model.value[c][ids[i]], dim, vectors + i * dim);
    }
    if (txn == NULL)
        workload_attempt(work);
    if (workload_expect(work,
                        omendb_put_batch(work->collections[c], txn, (size_t)count, ids, vectors,
                                         OMENDB_F32, NULL),
                        "put") &&
        txn == NULL)
        workload_acknowledge(work);
}

static void workload_delete(struct workload *work, omendb_txn *txn, int c, uint64_t first,
                            uint64_t count)
{
    uint64_t ids[ENUMERATE_IDS];
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = (first + i) % ENUMERATE_IDS;
        work->model.value[c][ids[i]] = 0;
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

/* Puts into one collection, deletes from another: both or neither. */
static void workload_transaction(struct workload *work)
{
    omendb_txn *txn = NULL;
    const int a = workload_pick(work), b = workload_pick(work);
    const struct model before = work->model;
    if (work->broken ||
        !workload_expect(work, omendb_txn_begin(work->db, OMENDB_READ_WRITE, &txn), "begin"))
        return;
    workload_put(work, txn, a, support_below(&work->random, ENUMERATE_IDS),
                 1 + support_below(&work->random, 6));
    workload_delete(work, txn, b, support_below(&work->random, ENUMERATE_IDS),
                    1 + support_below(&work->random, 6));
    if (support_below(&work->random, 5) == 0) {
        work->model = before;
        omendb_txn_rollback(txn);
        return;
    }
    workload_attempt(work);
    if (workload_expect(work, omendb_txn_commit(txn), "commit"))
        workload_acknowledge(work);
}

static void workload_backup(struct workload *work)
{
    char path[32];
    if (work->backups == ENUMERATE_BACKUPS)
        return;
    snprintf(path, sizeof path, "/backup-%d", work->backups++);
    if (workload_expect(work, omendb_backup(work->db, path), "backup"))
        crash_mark(work->fs, MARK_BACKUP, work->history->count - 1);
}

static void workload_reopen(struct workload *work)
{
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

/* Reads what the recovered database holds into the model, by id. */
static int workload_load(struct workload *work)
{
    float vector[SUPPORT_DIM_MAX];
    const struct model known = work->model;
    memset(&work->model, 0, sizeof work->model);
    work->model.next_value = known.next_value;
    for (int c = 0; c < ENUMERATE_COLLECTIONS; c++) {
        const int status =
            omendb_collection_open(work->db, enumerate_names[c], NULL, &work->collections[c]);
        if (status == OMENDB_NOTFOUND)
            continue;
        if (status != OMENDB_OK)
            return status;
        work->model.present[c] = 1;
        for (uint64_t id = 0; id < ENUMERATE_IDS; id++)
            if (omendb_get(work->collections[c], NULL, id, OMENDB_F32, vector) == OMENDB_OK)
                work->model.value[c][id] = model_value(vector);
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
    crash_die_at(work->fs, 1 + support_below(&work->random, 9));
    workload_put(work, NULL, c, support_below(&work->random, ENUMERATE_IDS), 3);
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

static void workload_maintain(struct workload *work, uint64_t dice)
{
    if (dice < 2) {
        workload_fail_checkpoint(work);
    } else if (dice < 4) {
        if (workload_expect(work, omendb_checkpoint(work->db), "checkpoint"))
            workload_settle(work);
    } else if (dice < 6) {
        workload_expect(work, omendb_optimize(work->db, NULL, NULL), "optimize");
    } else if (dice < 9) {
        workload_reopen(work);
    } else if (dice < 10) {
        workload_backup(work);
    } else if (dice < 13) {
        workload_die(work);
    } else {
        workload_expect(work, omendb_work(work->db, 200 + support_below(&work->random, 2000), NULL),
                        "work");
    }
}

static void workload_step(struct workload *work)
{
    const uint64_t dice = support_below(&work->random, 100);
    const uint64_t id = support_below(&work->random, ENUMERATE_IDS);
    const uint64_t many = 2 + support_below(&work->random, 30);
    if (dice < 20) {
        workload_maintain(work, dice);
    } else if (dice < 22) {
        const int c = (int)support_below(&work->random, ENUMERATE_COLLECTIONS);
        if (work->model.present[c])
            workload_drop(work, c);
        else
            workload_create(work, c);
    } else if (dice < 27) {
        const int c = (int)support_below(&work->random, ENUMERATE_COLLECTIONS);
        if (!work->model.present[c])
            workload_create(work, c);
    } else if (dice < 35) {
        workload_transaction(work);
    } else {
        const int c = workload_pick(work);
        if (work->broken)
            return;
        if (dice < 55)
            workload_put(work, NULL, c, id, 1);
        else if (dice < 78)
            workload_put(work, NULL, c, id, many);
        else if (dice < 92)
            workload_delete(work, NULL, c, id, 1);
        else
            workload_delete(work, NULL, c, id, many);
    }
}

/* ------------------------------------------------------------------------------------------------
 * the campaign */

struct campaign {
    uint64_t images, recovered_older, crashed_again, backups_checked, failures;
    uint64_t failures_allowed; /* stops at so many */
    const char *omitted;       /* class of syncs left out */
    const char *deepest;       /* what went wrong, for the table */
    struct support_random random;
    uint64_t seed;
    uint32_t sync; /* of the recorded workload */
    int quiet;
};

/* What of the history an image may hold. */
struct bounds {
    size_t acknowledged, attempted;
    size_t backups[ENUMERATE_BACKUPS];
    int backup_count;
};

static void campaign_fail(struct campaign *campaign, const char *what, const char *detail)
{
    campaign->failures++;
    if (campaign->deepest == NULL)
        campaign->deepest = what;
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

/* Opens a finished backup of the image. */
static void campaign_check_backup(struct campaign *campaign, struct crash_fs *image,
                                  const struct history *history, const struct bounds *bounds)
{
    struct workload work = {.fs = image};
    omendb *db = NULL;
    char path[32];
    uint64_t digest = 0;
    const int number = (int)support_below(&campaign->random, (uint64_t)bounds->backup_count);
    snprintf(path, sizeof path, "/backup-%d", number);
    campaign->backups_checked++;
    if (workload_open(&work, path, 1, &db) != OMENDB_OK ||
        support_digest(db, NULL, &digest) != OMENDB_OK)
        campaign_fail(campaign, "a finished backup cannot be read", omendb_errmsg());
    else if (digest != history->digests[bounds->backups[number]])
        campaign_fail(campaign, "a finished backup holds another state", path);
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

/* Recovers one image, compares it, works on, and maybe crashes again. */
static void campaign_try(struct campaign *campaign, struct crash_fs *image,
                         const struct history *history, const struct bounds *bounds,
                         const struct model *known, int depth)
{
    struct history own = {0};
    struct workload work = {.fs = image, .history = &own, .model = *known};
    const int again = depth == 0 && support_below(&campaign->random, 5) == 0;
    struct crash_fs *start = again ? crash_fs_copy(image) : NULL;
    uint64_t digest = 0;
    size_t found = SIZE_MAX;
    int status;
    campaign->images++;
    work.random.state = support_next(&campaign->random);
    work.backups = ENUMERATE_BACKUPS;
    work.io = support_below(&work.random, 4) == 0 ? OMENDB_IO_PREAD : OMENDB_IO_MAP;
    for (size_t i = bounds->acknowledged; i <= bounds->attempted; i++)
        history_add(&own, history->digests[i]);
    const struct bounds before = {.acknowledged = 0, .attempted = own.count - 1};
    status = workload_open(&work, "/db", 0, &work.db);
    if (status != OMENDB_OK)
        campaign_fail(campaign, "cannot be opened", omendb_errmsg());
    if (status == OMENDB_OK && (status = support_digest(work.db, NULL, &digest)) != OMENDB_OK)
        campaign_fail(campaign, "cannot be read", omendb_errmsg());
    if (status == OMENDB_OK)
        found = campaign_match(campaign, history, bounds, digest);
    if (found != SIZE_MAX) {
        campaign->recovered_older += found < bounds->attempted;
        if (support_check(work.db) != OMENDB_OK)
            campaign_fail(campaign, "check finds problems after recovery", omendb_errmsg());
        campaign_go_on(campaign, &work, &own, digest, again ? 6 : 2);
        if (!work.broken && support_check(work.db) != OMENDB_OK)
            campaign_fail(campaign, "check finds problems after going on", omendb_errmsg());
        if (work.broken)
            campaign_fail(campaign, "cannot be worked on", omendb_errmsg());
    }
    workload_close_collections(&work);
    if (omendb_close(work.db) != OMENDB_OK && !work.broken)
        campaign_fail(campaign, "cannot be closed", omendb_errmsg());
    if (found != SIZE_MAX && bounds->backup_count > 0 && depth == 0 &&
        support_below(&campaign->random, 8) == 0)
        campaign_check_backup(campaign, image, history, bounds);
    if (again && found != SIZE_MAX && !work.broken) {
        campaign->crashed_again++;
        campaign_walk(campaign, image, start, &own, before, 6, &work.model, depth + 1);
    }
    crash_fs_destroy(start);
    free(own.digests);
}

static int campaign_is_over(const struct campaign *campaign)
{
    return campaign->failures >= campaign->failures_allowed;
}

static void bounds_note(struct bounds *bounds, const struct crash_event *event)
{
    if (event->kind != CRASH_MARK)
        return;
    if (event->size == MARK_ATTEMPT)
        bounds->attempted = (size_t)event->offset;
    if (event->size == MARK_ACKNOWLEDGED)
        bounds->acknowledged = (size_t)event->offset;
    if (event->size == MARK_BACKUP)
        bounds->backups[bounds->backup_count++] = (size_t)event->offset;
}

static void campaign_image(struct campaign *campaign, const struct crash_replay *replay,
                           const struct history *history, const struct bounds *bounds,
                           const struct model *known, int depth)
{
    static const char *const lucks[CRASH_LUCKS] = {
        "nothing", "everything", "random", "all but one", "only one", "names only", "bytes only"};
    const uint64_t failures = campaign->failures;
    uint64_t luck = support_below(&campaign->random, CRASH_LUCKS + 4);
    if (luck >= CRASH_LUCKS)
        luck = CRASH_RANDOM;
    struct crash_fs *image = crash_image(replay, (enum crash_luck)luck, &campaign->random);
    campaign_try(campaign, image, history, bounds, known, depth);
    crash_fs_destroy(image);
    if (campaign->failures != failures && !campaign->quiet)
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
    workload_close_collections(work);
    if (work->db != NULL)
        workload_expect(work, omendb_close(work->db), "last close");
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
    struct crash_fs *fs = campaign_record(&work, &history, seed, steps, campaign->sync);
    campaign->seed = seed;
    campaign->random.state = seed ^ UINT64_C(0x5eed);
    if (fs == NULL)
        campaign_fail(campaign, "the workload itself failed", omendb_errmsg());
    else
        campaign_walk(campaign, fs, NULL, &history, bounds, images, &work.model, 0);
    free(history.digests);
    return fs;
}

static void campaign_print(const struct campaign *campaign)
{
    printf("%llu images: %llu held an older state than the last one attempted, %llu crashed again, "
           "%llu backups opened, %llu failures\n",
           (unsigned long long)campaign->images, (unsigned long long)campaign->recovered_older,
           (unsigned long long)campaign->crashed_again,
           (unsigned long long)campaign->backups_checked, (unsigned long long)campaign->failures);
    fflush(stdout);
}

static uint64_t enumerate_images = 10000, enumerate_seed = 1, enumerate_failures = 10;

TEST(every_crash_leaves_a_prefix_with_all_that_was_acknowledged)
{
    struct campaign campaign = {.failures_allowed = enumerate_failures};
    const uint64_t each = enumerate_images < 1250 ? enumerate_images : 1250;
    for (uint64_t i = 0; campaign.images < enumerate_images && !campaign_is_over(&campaign); i++) {
        const uint64_t images = campaign.images;
        crash_fs_destroy(campaign_run(&campaign, enumerate_seed + i, each, 250));
        if (campaign.images == images)
            break;
        if (i % 20 == 19)
            campaign_print(&campaign);
    }
    campaign_print(&campaign);
    CHECK_EQ_INT(campaign.failures, 0);
}

/* What is lost then are the newest commits, whole ones, and none from before the last checkpoint.
 */
TEST(without_a_sync_of_commits_a_crash_leaves_a_prefix_since_the_checkpoint)
{
    struct campaign campaign = {.failures_allowed = enumerate_failures, .sync = OMENDB_SYNC_NORMAL};
    for (uint64_t i = 0; campaign.images < enumerate_images / 4 && !campaign_is_over(&campaign);
         i++) {
        const uint64_t images = campaign.images;
        crash_fs_destroy(campaign_run(&campaign, enumerate_seed + 1000 + i, 500, 250));
        if (campaign.images == images)
            break;
    }
    campaign_print(&campaign);
    CHECK_EQ_INT(campaign.failures, 0);
    CHECK(campaign.recovered_older > campaign.images / 10);
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
    for (size_t w = 0; w < CONCURRENT_WRITERS && campaign->failures == 0; w++)
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
    campaign->images++;
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
    const uint64_t images = enumerate_images / 5;
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
    campaign_print(&campaign);
    CHECK_EQ_INT(campaign.failures, 0);
    CHECK(campaign.images > 0);
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
        struct crash_fs *fs = campaign_run(&campaign, enumerate_seed + i, 0, 250);
        for (uint32_t site = 0; fs != NULL && site < fs->site_count; site++)
            sites_add(table, fs->sites[site]);
        crash_fs_destroy(fs);
    }
}

TEST(every_sync_is_necessary)
{
    static struct site_table table;
    int useless = 0;
    table.count = 0;
    sites_collect(&table, 4);
    printf("%-44s %8s  %s\n", "sync left out", "images", "what is seen");
    for (size_t i = 0; i < table.count; i++) {
        struct campaign campaign = {.failures_allowed = 1, .omitted = table.names[i], .quiet = 1};
        for (uint64_t w = 0; w < 12 && campaign.failures == 0; w++)
            crash_fs_destroy(
                campaign_run(&campaign, enumerate_seed + w % 4, UINT64_C(150) << (w / 4), 250));
        printf("%-44s %8llu  %s\n", table.names[i], (unsigned long long)campaign.images,
               campaign.failures == 0 ? "NOTHING" : campaign.deepest);
        fflush(stdout);
        useless += campaign.failures == 0;
    }
    CHECK_EQ_INT(useless, 0);
    CHECK(table.count > 0);
}

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {
        every_crash_leaves_a_prefix_with_all_that_was_acknowledged,
        without_a_sync_of_commits_a_crash_leaves_a_prefix_since_the_checkpoint,
        crashes_of_writers_at_once_leave_a_prefix_of_whole_batches, every_sync_is_necessary};
    const int campaign_only = support_argument(argc, argv, "--images", 0) != 0;
    const int syncs_only = support_flag(argc, argv, "--omit-syncs");
    enumerate_images = support_argument(argc, argv, "--images", support_scaled(10000, 500));
    enumerate_seed = support_argument(argc, argv, "--seed", support_seed(1));
    enumerate_failures = support_argument(argc, argv, "--keep-going", 0) ? UINT64_MAX : 10;
    if (syncs_only)
        return test_run(1, argv, all + 3, 1, "every_sync_is_necessary");
    return test_run(1, argv, all, campaign_only ? 3 : 4,
                    "every_crash_leaves_a_prefix_with_all_that_was_acknowledged, "
                    "without_a_sync_of_commits_a_crash_leaves_a_prefix_since_the_checkpoint, "
                    "crashes_of_writers_at_once_leave_a_prefix_of_whole_batches, "
                    "every_sync_is_necessary");
}
