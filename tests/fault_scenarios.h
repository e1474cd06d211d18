/* fault_scenarios.h: what the tests of failing files and failing memory do to a database.
 *
 * To add a scenario: a function fault_act_*, and a line in fault_scenarios.
 *
 * A scenario starts from a prepared disk, opens it, and acts. A run without faults notes the digest
 * of the database after each commit; a run with faults counts the commits that were acknowledged.
 * Then the database is reopened without faults and must hold the state after the last acknowledged
 * commit, or after the one that failed (a failed commit may be there: point 4 of the contract),
 * unless the code says that nothing was done.
 *
 * fault_allocator counts, checks the sizes that are given back, and fails on demand. */
#ifndef OMENDB_TEST_FAULT_SCENARIOS_H
#define OMENDB_TEST_FAULT_SCENARIOS_H

#include "crash_vfs.h"
#include "parallel.h"
#include "support.h"

#define FAULT_DOCS   8
#define FAULT_TAGS   4
#define FAULT_STATES 64

/* ------------------------------------------------------------------------------------------------
 * memory that can fail */

struct fault_memory {
    pthread_mutex_t mutex;
    uint64_t calls, at, hits; /* at: 0: never */
    int forever, armed;
    int64_t balance, blocks;
    int wrong_sizes;
};

union fault_header {
    size_t size;
    max_align_t align;
};

static inline int fault_memory_fails(struct fault_memory *memory)
{
    if (!memory->armed)
        return 0;
    memory->calls++;
    if (memory->at == 0 || memory->calls < memory->at ||
        (memory->calls > memory->at && !memory->forever))
        return 0;
    memory->hits++;
    return 1;
}

static inline void *fault_alloc(void *context, size_t size)
{
    struct fault_memory *memory = context;
    union fault_header *header = NULL;
    pthread_mutex_lock(&memory->mutex);
    if (!fault_memory_fails(memory) && size < SIZE_MAX / 2)
        header = malloc(sizeof *header + size);
    if (header != NULL) {
        header->size = size;
        memory->balance += (int64_t)size;
        memory->blocks++;
    }
    pthread_mutex_unlock(&memory->mutex);
    return header == NULL ? NULL : header + 1;
}

static inline void fault_release(void *context, void *block, size_t size)
{
    struct fault_memory *memory = context;
    union fault_header *header = block;
    if (block == NULL)
        return;
    header--;
    pthread_mutex_lock(&memory->mutex);
    memory->wrong_sizes += header->size != size;
    memory->balance -= (int64_t)header->size;
    memory->blocks--;
    pthread_mutex_unlock(&memory->mutex);
    free(header);
}

static inline void *fault_resize(void *context, void *block, size_t old_size, size_t new_size)
{
    void *moved = fault_alloc(context, new_size);
    if (moved == NULL || block == NULL)
        return moved;
    memcpy(moved, block, old_size < new_size ? old_size : new_size);
    fault_release(context, block, old_size);
    return moved;
}

static inline void fault_memory_init(struct fault_memory *memory)
{
    memset(memory, 0, sizeof *memory);
    pthread_mutex_init(&memory->mutex, NULL);
}

/* ------------------------------------------------------------------------------------------------
 * a run */

struct fault_run {
    struct crash_fs *fs;
    struct fault_memory *memory; /* NULL: malloc */
    omendb *db;
    omendb_collection *docs, *tags;
    uint32_t io;
    uint64_t memory_limit; /* 0: none, and who lacks memory is told at once */
    int reference;         /* notes digests; otherwise counts */
    uint64_t states[FAULT_STATES];
    size_t acknowledged; /* index of the newest acknowledged state */
    int committing;      /* the call that failed, if one did, was a commit */
    int extra;           /* a record was put after the fault, and acknowledged */
    int (*again)(omendb *db,
                 const char *name); /* the step of "moved" that was tried last, or NULL */
};

static inline int fault_open_path(struct fault_run *run, const char *path, int read_only,
                                  omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_allocator allocator = {sizeof allocator, run->memory, fault_alloc, fault_resize,
                                  fault_release};
    options.vfs = &run->fs->vfs;
    options.threads = 0;
    options.wal_limit = 24 * 1024;
    options.tail_limit = 16 * 1024;
    options.stall_timeout_ms = 200;
    options.io = run->io;
    options.memory_limit = run->memory_limit;
    options.read_only = (uint32_t)read_only;
    options.allocator = run->memory == NULL ? NULL : &allocator;
    return omendb_open(path, &options, db);
}

static inline int fault_open_collections(struct fault_run *run)
{
    const int status = omendb_collection_open(run->db, "docs", NULL, &run->docs);
    return status != OMENDB_OK ? status : omendb_collection_open(run->db, "tags", NULL, &run->tags);
}

static inline int fault_open(struct fault_run *run)
{
    const int status = fault_open_path(run, "/db", 0, &run->db);
    return status != OMENDB_OK ? status : fault_open_collections(run);
}

static inline int fault_close(struct fault_run *run)
{
    omendb_collection_close(run->docs);
    omendb_collection_close(run->tags);
    run->docs = run->tags = NULL;
    const int status = omendb_close(run->db);
    if (status != OMENDB_BUSY)
        run->db = NULL;
    return status;
}

/* After each commit: `status` is its result. */
static inline int fault_commit(struct fault_run *run, int status)
{
    run->committing = status != OMENDB_OK;
    if (status != OMENDB_OK)
        return status;
    run->acknowledged++;
    if (run->reference && run->acknowledged < FAULT_STATES)
        return support_digest(run->db, NULL, &run->states[run->acknowledged]);
    return OMENDB_OK;
}

static inline int fault_put_many(struct fault_run *run, omendb_collection *collection,
                                 omendb_txn *txn, uint32_t dim, uint64_t first, uint64_t count,
                                 uint64_t value)
{
    float vectors[256 * FAULT_DOCS];
    uint64_t ids[256];
    (void)run;
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = first + i;
        support_vector(value + i, dim, vectors + i * dim);
    }
    return omendb_put_batch(collection, txn, (size_t)count, ids, vectors, OMENDB_F32, NULL);
}

/* ------------------------------------------------------------------------------------------------
 * disks to start from */

static inline omendb_schema fault_schema(uint32_t dim)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = dim;
    schema.M = 4;
    schema.ef_construction = 16;
    return schema;
}

enum fault_start { FAULT_CLOSED, FAULT_DIED, FAULT_LARGE };

/* One segment with a graph that is walked. */
static inline struct crash_fs *fault_prepare_large(void)
{
    struct crash_fs *fs = crash_fs_create(0);
    struct fault_run run = {.fs = fs};
    const omendb_schema docs = fault_schema(FAULT_DOCS), tags = fault_schema(FAULT_TAGS);
    support_must(fault_open_path(&run, "/db", 0, &run.db));
    support_must(omendb_collection_create(run.db, "docs", &docs, &run.docs));
    support_must(omendb_collection_create(run.db, "tags", &tags, &run.tags));
    for (uint64_t i = 0; i < 8; i++)
        support_must(fault_put_many(&run, run.docs, NULL, FAULT_DOCS, i * 250, 250, i * 250));
    support_must(omendb_optimize(run.db, NULL, NULL));
    support_must(fault_close(&run));
    return fs;
}

/* Two segments and tombstones, in `docs`; a few records in `tags`; and, if the process died, a log.
 */
static inline struct crash_fs *fault_prepare(enum fault_start start)
{
    if (start == FAULT_LARGE)
        return fault_prepare_large();
    const int died = start == FAULT_DIED;
    struct crash_fs *fs = crash_fs_create(0), *copy;
    struct fault_run run = {.fs = fs};
    const omendb_schema docs = fault_schema(FAULT_DOCS), tags = fault_schema(FAULT_TAGS);
    uint64_t ids[20];
    support_must(fault_open_path(&run, "/db", 0, &run.db));
    support_must(omendb_collection_create(run.db, "docs", &docs, &run.docs));
    support_must(omendb_collection_create(run.db, "tags", &tags, &run.tags));
    support_must(fault_put_many(&run, run.docs, NULL, FAULT_DOCS, 0, 200, 1));
    support_must(fault_put_many(&run, run.tags, NULL, FAULT_TAGS, 0, 40, 1));
    support_must(omendb_optimize(run.db, NULL, NULL));
    support_must(fault_put_many(&run, run.docs, NULL, FAULT_DOCS, 180, 60, 1000));
    support_must(omendb_checkpoint(run.db));
    for (uint64_t i = 0; i < 20; i++)
        ids[i] = i * 5;
    support_must(omendb_delete_batch(run.docs, NULL, 20, ids, NULL));
    support_must(omendb_checkpoint(run.db));
    support_must(fault_put_many(&run, run.docs, NULL, FAULT_DOCS, 300, 30, 2000));
    support_must(omendb_delete(run.docs, NULL, 1));
    copy = died ? crash_fs_copy(fs) : NULL;
    support_must(fault_close(&run));
    if (!died)
        copy = crash_fs_copy(fs);
    crash_fs_destroy(fs);
    return copy;
}

/* ------------------------------------------------------------------------------------------------
 * what is done; each stops at the first error */

static inline int fault_act_nothing(struct fault_run *run)
{
    (void)run;
    return OMENDB_OK;
}

static inline int fault_act_add(struct fault_run *run)
{
    float vector[FAULT_DOCS];
    omendb_record record = OMENDB_RECORD_INIT;
    support_vector(77, FAULT_DOCS, vector);
    record.vector = vector;
    return fault_commit(run, omendb_add(run->docs, NULL, &record, NULL));
}

static inline int fault_act_put_over_sealed(struct fault_run *run)
{
    return fault_commit(run, support_put(run->docs, NULL, 17, 5000, FAULT_DOCS));
}

static inline int fault_act_add_batch(struct fault_run *run)
{
    float vectors[100 * FAULT_DOCS];
    for (uint64_t i = 0; i < 100; i++)
        support_vector(3000 + i, FAULT_DOCS, vectors + i * FAULT_DOCS);
    return fault_commit(run,
                        omendb_add_batch(run->docs, NULL, 100, NULL, vectors, OMENDB_F32, NULL));
}

static inline int fault_act_put_batch(struct fault_run *run)
{
    return fault_commit(run, fault_put_many(run, run->docs, NULL, FAULT_DOCS, 100, 150, 7000));
}

static inline int fault_act_put_batch_above(struct fault_run *run)
{
    return fault_commit(run, fault_put_many(run, run->docs, NULL, FAULT_DOCS, 100, 50, 7500));
}

static inline int fault_act_delete(struct fault_run *run)
{
    int status = fault_commit(run, omendb_delete(run->docs, NULL, 33));
    if (status == OMENDB_OK)
        status = fault_commit(run, omendb_delete(run->docs, NULL, 310));
    return status;
}

static inline int fault_act_delete_batch(struct fault_run *run)
{
    uint64_t ids[100];
    for (uint64_t i = 0; i < 100; i++)
        ids[i] = i * 3;
    return fault_commit(run, omendb_delete_batch(run->docs, NULL, 100, ids, NULL));
}

static inline int fault_act_create(struct fault_run *run)
{
    const omendb_schema schema = fault_schema(3);
    omendb_collection *collection = NULL;
    const int status =
        fault_commit(run, omendb_collection_create(run->db, "more", &schema, &collection));
    omendb_collection_close(collection);
    return status;
}

static inline int fault_limit(struct fault_run *run, uint64_t records)
{
    omendb_limits limits = OMENDB_LIMITS_INIT;
    limits.records = records;
    limits.writes_per_second = 1000000;
    return fault_commit(run, omendb_collection_set_limits(run->tags, &limits));
}

/* Set, refusing, in a manifest, taken away. */
static inline int fault_act_limits(struct fault_run *run)
{
    int status = fault_limit(run, 2);
    if (status == OMENDB_OK && support_put(run->tags, NULL, 5001, 1, FAULT_TAGS) == OMENDB_OK)
        status = OMENDB_MISUSE;
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    if (status == OMENDB_OK)
        status = fault_commit(run, omendb_delete(run->tags, NULL, 1));
    return status == OMENDB_OK ? fault_limit(run, 0) : status;
}

/* Declared, refusing, in a manifest, taken away. */
static inline int fault_act_declare(struct fault_run *run)
{
    omendb_field fields[2] = {OMENDB_FIELD_INIT, OMENDB_FIELD_INIT};
    fields[0].name = "name";
    fields[0].required = 1;
    fields[1].name = "age";
    fields[1].type = OMENDB_FIELD_I64;
    int status = fault_commit(run, omendb_collection_declare(run->tags, 2, fields, 1));
    if (status == OMENDB_OK && support_put(run->tags, NULL, 5001, 1, FAULT_TAGS) == OMENDB_OK)
        status = OMENDB_MISUSE;
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    if (status == OMENDB_OK)
        status = fault_commit(run, omendb_delete(run->tags, NULL, 1));
    return status == OMENDB_OK ? fault_commit(run, omendb_collection_declare(run->tags, 0, NULL, 0))
                               : status;
}

static inline int fault_act_drop(struct fault_run *run)
{
    return fault_commit(run, omendb_collection_drop(run->db, "tags"));
}

static inline int fault_act_create_many(struct fault_run *run)
{
    const omendb_schema schema = fault_schema(3);
    int status = OMENDB_OK;
    for (int i = 0; i < 6 && status == OMENDB_OK; i++) {
        char name[16];
        omendb_collection *collection = NULL;
        snprintf(name, sizeof name, "c%d", i);
        status = fault_commit(run, omendb_collection_create(run->db, name, &schema, &collection));
        if (status == OMENDB_OK)
            status = fault_commit(run, support_put(collection, NULL, 1, 1, 3));
        omendb_collection_close(collection);
    }
    return status;
}

static inline int fault_act_open_or_create(struct fault_run *run)
{
    const omendb_schema docs = fault_schema(FAULT_DOCS), more = fault_schema(3);
    omendb_collection *one = NULL, *other = NULL;
    int status = omendb_collection_open_or_create(run->db, "docs", &docs, &one);
    if (status == OMENDB_OK)
        status =
            fault_commit(run, omendb_collection_open_or_create(run->db, "more", &more, &other));
    omendb_collection_close(one);
    omendb_collection_close(other);
    return status;
}

/* The same name with other contents, and a checkpoint that must not mix them. */
static inline int fault_act_drop_and_create(struct fault_run *run)
{
    const omendb_schema schema = fault_schema(3);
    omendb_collection *tags = NULL;
    int status = fault_act_drop(run);
    if (status == OMENDB_OK)
        status = fault_commit(run, omendb_collection_create(run->db, "tags", &schema, &tags));
    if (status == OMENDB_OK)
        status = fault_commit(run, fault_put_many(run, tags, NULL, 3, 0, 20, 100));
    omendb_collection_close(tags);
    return status == OMENDB_OK ? omendb_checkpoint(run->db) : status;
}

/* The transaction loses: that is no failure. */
static inline int fault_act_conflict(struct fault_run *run)
{
    omendb_txn *txn = NULL;
    int status = omendb_txn_begin(run->db, OMENDB_READ_WRITE, &txn);
    if (status != OMENDB_OK)
        return status;
    status = fault_put_many(run, run->docs, txn, FAULT_DOCS, 10, 20, 8100);
    if (status == OMENDB_OK)
        status = omendb_delete(run->tags, txn, 3);
    if (status == OMENDB_OK)
        status = fault_commit(run, support_put(run->docs, NULL, 12, 8200, FAULT_DOCS));
    if (status != OMENDB_OK) {
        omendb_txn_rollback(txn);
        return status;
    }
    status = omendb_txn_commit(txn);
    return status == OMENDB_CONFLICT ? OMENDB_OK : status == OMENDB_OK ? OMENDB_MISUSE : status;
}

static inline int fault_act_rollback(struct fault_run *run)
{
    omendb_txn *txn = NULL;
    uint64_t count = 0;
    int status = omendb_txn_begin(run->db, OMENDB_READ_WRITE, &txn);
    if (status == OMENDB_OK)
        status = fault_put_many(run, run->docs, txn, FAULT_DOCS, 10, 20, 8300);
    if (status == OMENDB_OK)
        status = omendb_count(run->docs, txn, &count);
    omendb_txn_rollback(txn);
    return status == OMENDB_OK ? fault_act_put_over_sealed(run) : status;
}

static inline int fault_act_transaction(struct fault_run *run)
{
    omendb_txn *txn = NULL;
    int status = omendb_txn_begin(run->db, OMENDB_READ_WRITE, &txn);
    if (status != OMENDB_OK)
        return status;
    status = fault_put_many(run, run->docs, txn, FAULT_DOCS, 10, 40, 8000);
    if (status == OMENDB_OK)
        status = omendb_delete(run->tags, txn, 3);
    if (status == OMENDB_OK)
        status = fault_put_many(run, run->tags, txn, FAULT_TAGS, 35, 20, 8000);
    if (status == OMENDB_OK)
        return fault_commit(run, omendb_txn_commit(txn));
    omendb_txn_rollback(txn);
    return status;
}

static inline int fault_act_checkpoint(struct fault_run *run)
{
    int status = fault_act_add(run);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    return status;
}

static inline int fault_act_checkpoint_of_deletes(struct fault_run *run)
{
    int status = fault_commit(run, omendb_delete(run->docs, NULL, 44));
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    return status;
}

static inline int fault_act_optimize(struct fault_run *run)
{
    return omendb_optimize(run->db, NULL, NULL);
}

static inline int fault_act_work(struct fault_run *run)
{
    int status = fault_act_put_batch(run);
    if (status == OMENDB_OK)
        status = omendb_work(run->db, UINT64_MAX, NULL);
    return status;
}

static inline int fault_act_backup(struct fault_run *run)
{
    int status = fault_act_add(run);
    if (status == OMENDB_OK)
        status = omendb_backup(run->db, "/backup");
    return status;
}

static inline int fault_act_close(struct fault_run *run)
{
    const int status = fault_act_put_batch(run);
    return status == OMENDB_OK ? fault_close(run) : status;
}

/* Commits until the log has been rotated by its limit more than once. */
static inline int fault_act_fill_the_log(struct fault_run *run)
{
    int status = OMENDB_OK;
    for (uint64_t i = 0; i < 7 && status == OMENDB_OK; i++)
        status = fault_commit(
            run, fault_put_many(run, run->docs, NULL, FAULT_DOCS, i * 20, 250, 9000 + i * 300));
    return status;
}

static inline int fault_act_read(struct fault_run *run)
{
    float vector[FAULT_DOCS];
    uint64_t digest = 0;
    int status = omendb_get(run->docs, NULL, 3, OMENDB_F32, vector);
    if (status == OMENDB_OK)
        status = support_digest(run->db, NULL, &digest);
    return status;
}

static inline int fault_act_search(struct fault_run *run)
{
    float vectors[4 * FAULT_DOCS];
    omendb_query query = OMENDB_QUERY_INIT;
    uint64_t ids[40];
    float distances[40];
    size_t count = 0, counts[4];
    for (uint64_t i = 0; i < 4; i++)
        support_vector(i + 50, FAULT_DOCS, vectors + i * FAULT_DOCS);
    query.vector = vectors;
    int status = omendb_search(run->docs, NULL, &query, ids, distances, &count);
    query.exact = 1;
    if (status == OMENDB_OK)
        status = omendb_search(run->docs, NULL, &query, ids, distances, &count);
    query.exact = 0;
    query.vector = NULL;
    query.id = 3;
    if (status == OMENDB_OK)
        status = omendb_search(run->docs, NULL, &query, ids, distances, &count);
    if (status == OMENDB_OK)
        status = omendb_search_batch(run->docs, NULL, &query, vectors, 4, ids, distances, counts);
    return status;
}

/* A cursor that goes on while records that it has yet to show are deleted and merged away. */
static inline int fault_act_scan(struct fault_run *run)
{
    float vector[FAULT_DOCS];
    omendb_rows *rows = NULL;
    uint64_t id = 0, seen = 0, count = 0;
    int status = omendb_count(run->docs, NULL, &count);
    if (status == OMENDB_OK)
        status = omendb_scan(run->docs, NULL, 0, UINT64_MAX - 1, &rows);
    for (; seen < 20 && status == OMENDB_OK; seen++)
        status = omendb_rows_next(rows, &id, OMENDB_F32, vector);
    if (status == OMENDB_OK)
        status = fault_act_delete_batch(run);
    if (status == OMENDB_OK)
        status = omendb_optimize(run->db, NULL, NULL);
    while (status == OMENDB_OK) {
        status = omendb_rows_next(rows, &id, OMENDB_F32, vector);
        seen += status == OMENDB_OK;
    }
    omendb_rows_close(rows);
    if (status != OMENDB_DONE)
        return status;
    return seen == count ? OMENDB_OK : OMENDB_MISUSE;
}

static inline int fault_act_get_and_count(struct fault_run *run)
{
    float vector[FAULT_DOCS];
    uint64_t count = 0;
    int status = omendb_count(run->docs, NULL, &count);
    for (uint64_t id = 0; id < 340 && status == OMENDB_OK; id += 7) {
        status = omendb_get(run->docs, NULL, id, OMENDB_F32, vector);
        status = status == OMENDB_NOTFOUND ? OMENDB_OK : status;
    }
    return status;
}

static inline int fault_act_stats(struct fault_run *run)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    omendb_collection_stats one = OMENDB_COLLECTION_STATS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    int status = omendb_get_stats(run->db, &stats);
    if (status == OMENDB_OK)
        status = omendb_collection_get_stats(run->docs, &one);
    return status == OMENDB_OK ? omendb_collection_schema(run->docs, &schema) : status;
}

static inline int fault_act_search_batch(struct fault_run *run)
{
    float vectors[16 * FAULT_DOCS], distances[160];
    omendb_query query = OMENDB_QUERY_INIT;
    uint64_t ids[160];
    size_t counts[16];
    for (uint64_t i = 0; i < 16; i++)
        support_vector(i + 90, FAULT_DOCS, vectors + i * FAULT_DOCS);
    return omendb_search_batch(run->docs, NULL, &query, vectors, 16, ids, distances, counts);
}

static inline int fault_act_calibrate(struct fault_run *run)
{
    float vectors[60 * FAULT_DOCS];
    for (uint64_t i = 0; i < 60; i++)
        support_vector(i + 7777, FAULT_DOCS, vectors + i * FAULT_DOCS);
    return omendb_calibrate(run->docs, vectors, 60, OMENDB_F32, NULL, NULL);
}

/* ---- prepared transactions: all of them are called "moved" */

static inline int fault_step_of_two(struct fault_run *run, int (*step)(omendb *, const char *))
{
    run->again = step;
    const int status = fault_commit(run, step(run->db, "moved"));
    run->again = status == OMENDB_OK ? NULL : step;
    return status;
}

static inline int fault_act_prepare(struct fault_run *run)
{
    omendb_txn *txn = NULL;
    int status = omendb_txn_begin(run->db, OMENDB_READ_WRITE, &txn);
    if (status != OMENDB_OK)
        return status;
    status = fault_put_many(run, run->docs, txn, FAULT_DOCS, 10, 20, 8500);
    if (status == OMENDB_OK)
        status = omendb_delete(run->tags, txn, 3);
    if (status == OMENDB_OK)
        return fault_commit(run, omendb_txn_prepare(txn, "moved"));
    omendb_txn_rollback(txn);
    return status;
}

static inline int fault_act_prepare_and_commit(struct fault_run *run)
{
    int status = fault_act_prepare(run);
    if (status == OMENDB_OK)
        status = fault_step_of_two(run, omendb_commit_prepared);
    return status == OMENDB_OK ? fault_step_of_two(run, omendb_forget_prepared) : status;
}

static inline int fault_act_prepare_and_roll_back(struct fault_run *run)
{
    int status = fault_act_prepare(run);
    if (status == OMENDB_OK)
        status = fault_step_of_two(run, omendb_rollback_prepared);
    return status == OMENDB_OK ? fault_step_of_two(run, omendb_forget_prepared) : status;
}

/* Copies into a new log: of what waits, and of an outcome. */
static inline int fault_act_checkpoint_while_one_waits(struct fault_run *run)
{
    int status = fault_act_prepare(run);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    if (status == OMENDB_OK)
        status = fault_step_of_two(run, omendb_commit_prepared);
    return status == OMENDB_OK ? omendb_checkpoint(run->db) : status;
}

static inline int fault_act_reopen_while_one_waits(struct fault_run *run)
{
    int status = fault_act_prepare(run);
    if (status == OMENDB_OK)
        status = fault_close(run);
    if (status == OMENDB_OK)
        status = fault_open(run);
    if (status == OMENDB_OK)
        status = support_put(run->docs, NULL, 12, 1, FAULT_DOCS); /* it is locked */
    if (status == OMENDB_OK)
        return OMENDB_MISUSE;
    return status == OMENDB_BUSY ? fault_step_of_two(run, omendb_commit_prepared) : status;
}

/* What is deleted, and what an open database still shows of it. */
static inline int fault_act_purge(struct fault_run *run)
{
    const int status = fault_act_delete(run);
    return status == OMENDB_OK ? omendb_purge(run->db, NULL) : status;
}

static inline int fault_act_purge_a_collection(struct fault_run *run)
{
    int status = fault_act_prepare(run);
    if (status == OMENDB_OK)
        status = fault_act_delete(run);
    return status == OMENDB_OK ? omendb_purge(run->db, "docs") : status;
}

static inline int fault_act_backup_again(struct fault_run *run)
{
    int status = omendb_backup(run->db, "/backup");
    if (status == OMENDB_OK)
        status = fault_act_prepare(run);
    if (status == OMENDB_OK)
        status = omendb_backup(run->db, "/backup");
    if (status == OMENDB_OK)
        status = fault_act_put_batch_above(run);
    return status == OMENDB_OK ? omendb_backup(run->db, "/backup") : status;
}

static inline int fault_act_salvage(struct fault_run *run)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_allocator allocator = {sizeof allocator, run->memory, fault_alloc, fault_resize,
                                  fault_release};
    int status = fault_act_prepare(run);
    if (status == OMENDB_OK)
        status = fault_close(run);
    options.vfs = &run->fs->vfs;
    options.threads = 0;
    options.allocator = run->memory == NULL ? NULL : &allocator;
    return status == OMENDB_OK ? omendb_salvage("/db", "/saved", &options, NULL, NULL, NULL)
                               : status;
}

/* Closes, opens, goes on, twice. */
static inline int fault_act_reopen(struct fault_run *run)
{
    int status = OMENDB_OK;
    for (uint64_t i = 0; i < 2 && status == OMENDB_OK; i++) {
        status = fault_commit(
            run, fault_put_many(run, run->docs, NULL, FAULT_DOCS, 40 * i, 30, 8400 + 100 * i));
        if (status == OMENDB_OK)
            status = fault_close(run);
        if (status == OMENDB_OK)
            status = fault_open(run);
    }
    return status;
}

/* Most rows go, then the segments are merged. */
static inline int fault_act_delete_and_optimize(struct fault_run *run)
{
    uint64_t ids[200];
    for (uint64_t i = 0; i < 200; i++)
        ids[i] = i;
    int status = fault_commit(run, omendb_delete_batch(run->docs, NULL, 200, ids, NULL));
    if (status == OMENDB_OK)
        status = omendb_optimize(run->db, NULL, NULL);
    return status == OMENDB_OK ? omendb_checkpoint(run->db) : status;
}

static inline int fault_act_check(struct fault_run *run)
{
    return omendb_check(run->db, NULL, NULL, NULL);
}

/* A snapshot that is older than a checkpoint and a merge. */
static inline int fault_act_snapshot(struct fault_run *run)
{
    omendb_txn *txn = NULL;
    uint64_t digest = 0;
    int status = omendb_txn_begin(run->db, OMENDB_READ_ONLY, &txn);
    if (status == OMENDB_OK)
        status = fault_act_put_over_sealed(run);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    if (status == OMENDB_OK)
        status = omendb_optimize(run->db, NULL, NULL);
    if (status == OMENDB_OK)
        status = support_digest(run->db, txn, &digest);
    if (status == OMENDB_OK && !run->reference && digest != run->states[0])
        status = OMENDB_MISUSE;
    omendb_txn_rollback(txn);
    return status;
}

static inline int fault_act_create_database(struct fault_run *run)
{
    omendb *db = NULL;
    const int status = fault_open_path(run, "/new", 0, &db);
    const int closed = omendb_close(db);
    return status != OMENDB_OK ? status : closed;
}

static inline int fault_act_read_only(struct fault_run *run)
{
    omendb *db = NULL;
    uint64_t digest = 0;
    int status = fault_close(run);
    if (status == OMENDB_OK)
        status = fault_open_path(run, "/db", 1, &db);
    if (status == OMENDB_OK)
        status = support_digest(db, NULL, &digest);
    if (status == OMENDB_OK)
        status = omendb_refresh(db);
    const int closed = omendb_close(db);
    return status != OMENDB_OK ? status : closed;
}

/* Refreshes; a reader then shows the newest state, or what it showed before, which is
 * states[shown], or an error, but no mix. */
static inline int fault_refresh(struct fault_run *run, omendb *reader, size_t shown)
{
    uint64_t digest = 0;
    const int status = omendb_refresh(reader);
    const int read = support_digest(reader, NULL, &digest);
    const uint64_t newest = run->states[run->acknowledged];
    if (run->reference || read != OMENDB_OK || digest == newest)
        return status;
    return status != OMENDB_OK && digest == run->states[shown] ? status : OMENDB_MISUSE;
}

static inline int fault_act_refresh(struct fault_run *run)
{
    omendb *reader = NULL;
    int status = fault_open_path(run, "/db", 1, &reader);
    if (status == OMENDB_OK)
        status = fault_act_transaction(run);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    if (status == OMENDB_OK)
        status = omendb_optimize(run->db, NULL, NULL);
    if (status == OMENDB_OK) {
        status = fault_refresh(run, reader, 0);
        const int again = fault_refresh(run, reader, 0);
        status = again == OMENDB_MISUSE ? again : status;
    }
    omendb_close(reader);
    return status;
}

/* A reader that knows a collection from the log, when what is published is older than that; one
 * that is dropped; and a curve of recall that stays and one that changes. */
static inline int fault_calibrate(struct fault_run *run, uint64_t seed)
{
    float vectors[64 * FAULT_DOCS];
    for (uint64_t i = 0; i < 64; i++)
        support_vector(i + seed, FAULT_DOCS, vectors + i * FAULT_DOCS);
    return omendb_calibrate(run->docs, vectors, 64, OMENDB_F32, NULL, NULL);
}

static inline int fault_act_refresh_collections(struct fault_run *run)
{
    omendb *reader = NULL;
    int status = fault_calibrate(run, 7000);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    if (status == OMENDB_OK)
        status = fault_open_path(run, "/db", 1, &reader);
    for (int round = 0; round < 4 && status == OMENDB_OK; round++) {
        const size_t shown = run->acknowledged;
        if (round == 0)
            status = fault_act_create(run);
        else if (round == 1)
            status = omendb_optimize(run->db, NULL, NULL);
        else if (round == 2)
            status = fault_calibrate(run, 8000);
        else
            status = fault_act_drop(run);
        /* Of a collection that only the log has a reader is told by the log. */
        if (status == OMENDB_OK && round > 0)
            status = omendb_checkpoint(run->db);
        if (status == OMENDB_OK) {
            status = fault_refresh(run, reader, shown);
            const int again = fault_refresh(run, reader, shown);
            status = again == OMENDB_MISUSE ? again : status;
        }
    }
    omendb_close(reader);
    return status;
}

/* Own records, replaced ones of memory and of segments, and deleted ones. */
static inline int fault_act_read_in_a_transaction(struct fault_run *run)
{
    float vector[FAULT_DOCS];
    omendb_txn *txn = NULL;
    omendb_rows *rows = NULL;
    omendb_stats stats = OMENDB_STATS_INIT;
    uint64_t id = 0, seen = 0, count = 0;
    int status = omendb_txn_begin(run->db, OMENDB_READ_WRITE, &txn);
    if (status != OMENDB_OK)
        return status;
    status = fault_put_many(run, run->docs, txn, FAULT_DOCS, 290, 100, 8600);
    if (status == OMENDB_OK)
        status = omendb_delete(run->docs, txn, 2);
    if (status == OMENDB_OK)
        status = omendb_delete(run->docs, txn, 389);
    if (status == OMENDB_OK)
        status = omendb_get_stats(run->db, &stats);
    if (status == OMENDB_OK)
        status = omendb_count(run->docs, txn, &count);
    if (status == OMENDB_OK)
        status = omendb_scan(run->docs, txn, 0, UINT64_MAX - 1, &rows);
    while (status == OMENDB_OK) {
        status = omendb_rows_next(rows, &id, OMENDB_F32, vector);
        seen += status == OMENDB_OK;
    }
    omendb_rows_close(rows);
    omendb_txn_rollback(txn);
    if (status != OMENDB_DONE)
        return status;
    return seen == count && stats.open_transactions == 1 ? OMENDB_OK : OMENDB_MISUSE;
}

static inline int fault_act_purge_what_was_dropped(struct fault_run *run)
{
    omendb_collection_close(run->tags);
    run->tags = NULL;
    int status = fault_act_drop(run);
    if (status == OMENDB_OK)
        status = omendb_purge(run->db, NULL);
    return status == OMENDB_OK ? omendb_purge(run->db, NULL) : status;
}

/* ---- keys and metadata: record n has the key "n", unless it is a multiple of four */

static inline int fault_write_documents(struct fault_run *run, omendb_txn *txn, int add,
                                        uint64_t first, size_t count, uint64_t value)
{
    static float vectors[32][FAULT_DOCS];
    static char keys[32][24], metadata[32][64];
    omendb_record records[32];
    for (size_t i = 0; i < count; i++) {
        records[i] = (omendb_record)OMENDB_RECORD_INIT;
        records[i].id = first + i;
        support_vector(value + i, FAULT_DOCS, vectors[i]);
        records[i].vector = vectors[i];
        snprintf(keys[i], sizeof keys[i], "%llu", (unsigned long long)records[i].id);
        snprintf(metadata[i], sizeof metadata[i], "{\"value\":%llu,\"tags\":[\"a\",\"b\"]}",
                 (unsigned long long)(value + i));
        records[i].key = records[i].id % 4 == 0 ? NULL : keys[i];
        records[i].metadata = i % 3 == 1 ? NULL : metadata[i];
    }
    return add ? omendb_add_records(run->docs, txn, count, records, NULL)
               : omendb_put_records(run->docs, txn, count, records, NULL);
}

/* OMENDB_MISUSE: the key leads elsewhere, or nowhere. */
static inline int fault_find(struct fault_run *run, omendb_txn *txn, const char *key, uint64_t id)
{
    uint64_t found = 0;
    const int status = omendb_find(run->docs, txn, key, &found);
    return status == OMENDB_NOTFOUND || (status == OMENDB_OK && found != id) ? OMENDB_MISUSE
                                                                             : status;
}

static inline int fault_act_documents(struct fault_run *run)
{
    float vector[FAULT_DOCS];
    omendb_record again = OMENDB_RECORD_INIT;
    support_vector(6, FAULT_DOCS, vector);
    again.id = OMENDB_ID_AUTO;
    again.vector = vector;
    again.key = "603";
    again.metadata = "{\"value\":null,\"new\":1.5}";
    int status = fault_commit(run, fault_write_documents(run, NULL, 1, 600, 30, 100));
    if (status == OMENDB_OK)
        status = fault_commit(run, omendb_update(run->docs, NULL, 602, again.metadata));
    if (status == OMENDB_OK)
        status = fault_commit(run, omendb_put(run->docs, NULL, &again, NULL));
    if (status == OMENDB_OK)
        status = fault_commit(run, omendb_delete_key(run->docs, NULL, "605"));
    if (status == OMENDB_OK)
        status = fault_find(run, NULL, "603", 603);
    return status;
}

static inline int fault_read_pages(struct fault_run *run, omendb_txn *txn,
                                   const omendb_query *query)
{
    omendb_pages *pages = NULL;
    uint64_t ids[20];
    float distances[20];
    size_t count = 0;
    int status = omendb_pages_open(run->docs, txn, query, &pages);
    for (int i = 0; i < 4 && status == OMENDB_OK; i++)
        status = omendb_pages_next(pages, 20, 0, ids, distances, &count);
    omendb_pages_close(pages);
    return status == OMENDB_DONE ? OMENDB_OK : status;
}

static inline int fault_count_values(struct fault_run *run, omendb_txn *txn,
                                     const omendb_filter *filter)
{
    omendb_facets *facets = NULL;
    omendb_facet facet = OMENDB_FACET_INIT;
    int status = omendb_facets_open(run->docs, txn, filter, NULL, NULL, "value", 2, &facets);
    while (status == OMENDB_OK)
        status = omendb_facets_next(facets, &facet);
    omendb_facets_close(facets);
    return status == OMENDB_DONE ? OMENDB_OK : status;
}

/* Groups, examples, many queries, pages, facets. */
static inline int fault_ask_more(struct fault_run *run, omendb_txn *txn,
                                 const omendb_filter *filter)
{
    static const uint64_t positive[] = {603, 604}, negative[] = {605};
    float vector[FAULT_DOCS], distances[40];
    omendb_query queries[2] = {OMENDB_QUERY_INIT, OMENDB_QUERY_INIT};
    uint64_t ids[40];
    size_t counts[2];
    support_vector(60, FAULT_DOCS, vector);
    queries[0].vector = vector;
    queries[0].group_by = "tags";
    queries[0].group_size = 3;
    queries[0].filter = filter;
    queries[1].positive_ids = positive;
    queries[1].positive_count = 2;
    queries[1].negative_ids = negative;
    queries[1].negative_count = 1;
    queries[1].k = 20;
    int status = omendb_search_many(run->docs, txn, queries, 2, ids, distances, counts);
    if (status == OMENDB_OK)
        status = fault_read_pages(run, txn, &queries[1]);
    if (status == OMENDB_OK)
        status = fault_count_values(run, txn, filter);
    return status == OMENDB_OK ? fault_count_values(run, txn, NULL) : status;
}

/* Of records in a segment, in memory and in a transaction. */
static inline int fault_act_ask_more(struct fault_run *run)
{
    omendb_filter *filter = NULL;
    omendb_txn *txn = NULL;
    int status = fault_commit(run, fault_write_documents(run, NULL, 0, 600, 30, 100));
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    if (status == OMENDB_OK)
        status = fault_commit(run, fault_write_documents(run, NULL, 0, 620, 20, 500));
    if (status == OMENDB_OK)
        status = omendb_filter_compile(run->db, "value IS NULL OR value > 3", &filter);
    if (status == OMENDB_OK)
        status = fault_ask_more(run, NULL, filter);
    if (status == OMENDB_OK)
        status = omendb_txn_begin(run->db, OMENDB_READ_WRITE, &txn);
    if (status == OMENDB_OK)
        status = fault_write_documents(run, txn, 0, 615, 10, 700);
    if (status == OMENDB_OK)
        status = fault_ask_more(run, txn, filter);
    omendb_txn_rollback(txn);
    omendb_filter_free(filter);
    return status;
}

/* A key goes from one record to another. */
static inline int fault_change_documents(struct fault_run *run, omendb_txn *txn)
{
    int status = fault_write_documents(run, txn, 0, 610, 25, 300);
    if (status == OMENDB_OK)
        status = omendb_update(run->docs, txn, 601, "{\"tags\":null,\"moved\":true}");
    if (status == OMENDB_OK)
        status = omendb_delete_key(run->docs, txn, "607");
    if (status == OMENDB_OK) {
        float vector[FAULT_DOCS];
        omendb_record heir = OMENDB_RECORD_INIT;
        support_vector(9, FAULT_DOCS, vector);
        heir.id = 700;
        heir.vector = vector;
        heir.key = "607";
        status = omendb_add(run->docs, txn, &heir, NULL);
    }
    return status == OMENDB_OK ? fault_find(run, txn, "607", 700) : status;
}

static inline int fault_act_documents_in_a_transaction(struct fault_run *run)
{
    omendb_txn *txn = NULL;
    int status = fault_commit(run, fault_write_documents(run, NULL, 1, 600, 20, 100));
    if (status == OMENDB_OK)
        status = omendb_txn_begin(run->db, OMENDB_READ_WRITE, &txn);
    if (status != OMENDB_OK)
        return status;
    status = fault_change_documents(run, txn);
    if (status == OMENDB_OK)
        return fault_commit(run, omendb_txn_commit(txn));
    omendb_txn_rollback(txn);
    return status;
}

/* In the log, in a segment, in a merged one, in an opened one. */
static inline int fault_act_documents_in_segments(struct fault_run *run)
{
    int status = fault_act_documents(run);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    if (status == OMENDB_OK)
        status = fault_commit(run, fault_write_documents(run, NULL, 0, 595, 20, 500));
    if (status == OMENDB_OK)
        status = fault_commit(run, omendb_update(run->docs, NULL, 621, "{\"value\":\"sealed\"}"));
    if (status == OMENDB_OK)
        status = omendb_optimize(run->db, NULL, NULL);
    if (status == OMENDB_OK)
        status = fault_close(run);
    if (status == OMENDB_OK)
        status = fault_open(run);
    return status == OMENDB_OK ? fault_find(run, NULL, "621", 621) : status;
}

/* What is prepared holds its keys over a checkpoint and an opening. */
static inline int fault_act_prepared_documents(struct fault_run *run)
{
    omendb_txn *txn = NULL;
    float vector[FAULT_DOCS];
    omendb_record other = OMENDB_RECORD_INIT;
    int status = fault_commit(run, fault_write_documents(run, NULL, 1, 600, 20, 100));
    if (status == OMENDB_OK)
        status = omendb_txn_begin(run->db, OMENDB_READ_WRITE, &txn);
    if (status != OMENDB_OK)
        return status;
    status = fault_change_documents(run, txn);
    if (status != OMENDB_OK)
        omendb_txn_rollback(txn);
    else
        status = fault_commit(run, omendb_txn_prepare(txn, "moved"));
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    if (status == OMENDB_OK)
        status = fault_close(run);
    if (status == OMENDB_OK)
        status = fault_open(run);
    if (status != OMENDB_OK)
        return status;
    support_vector(1, FAULT_DOCS, vector);
    other.id = 900;
    other.vector = vector;
    other.key = "633"; /* it is locked, and no record has it yet */
    status = omendb_put(run->docs, NULL, &other, NULL);
    if (status == OMENDB_OK)
        return OMENDB_MISUSE;
    return status == OMENDB_BUSY ? fault_step_of_two(run, omendb_commit_prepared) : status;
}

static inline int fault_act_salvage_documents(struct fault_run *run)
{
    int status = fault_act_documents(run);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(run->db);
    if (status == OMENDB_OK)
        status = fault_commit(run, omendb_update(run->docs, NULL, 601, "{\"late\":1}"));
    return status == OMENDB_OK ? fault_act_salvage(run) : status;
}

struct fault_scenario {
    const char *name;
    enum fault_start start;
    int opening_fails; /* the faults begin before opening */
    int (*act)(struct fault_run *run);
};

static const struct fault_scenario fault_scenarios[] = {
    {"create a database", FAULT_CLOSED, 0, fault_act_create_database},
    {"open after a clean close", FAULT_CLOSED, 1, fault_act_nothing},
    {"open after a death", FAULT_DIED, 1, fault_act_nothing},
    {"open after a death and read", FAULT_DIED, 1, fault_act_read},
    {"open after a death and add", FAULT_DIED, 1, fault_act_add},
    {"open read-only", FAULT_DIED, 0, fault_act_read_only},
    {"add", FAULT_CLOSED, 0, fault_act_add},
    {"add a batch", FAULT_CLOSED, 0, fault_act_add_batch},
    {"put over a sealed row", FAULT_CLOSED, 0, fault_act_put_over_sealed},
    {"put a batch", FAULT_CLOSED, 0, fault_act_put_batch},
    {"delete", FAULT_DIED, 0, fault_act_delete},
    {"delete a batch", FAULT_DIED, 0, fault_act_delete_batch},
    {"create a collection", FAULT_CLOSED, 0, fault_act_create},
    {"limits", FAULT_CLOSED, 0, fault_act_limits},
    {"declare fields", FAULT_CLOSED, 0, fault_act_declare},
    {"drop a collection", FAULT_CLOSED, 0, fault_act_drop},
    {"commit a transaction", FAULT_CLOSED, 0, fault_act_transaction},
    {"checkpoint", FAULT_DIED, 0, fault_act_checkpoint},
    {"checkpoint of deletes only", FAULT_CLOSED, 0, fault_act_checkpoint_of_deletes},
    {"optimize", FAULT_DIED, 0, fault_act_optimize},
    {"background work", FAULT_CLOSED, 0, fault_act_work},
    {"backup", FAULT_DIED, 0, fault_act_backup},
    {"close with changes", FAULT_CLOSED, 0, fault_act_close},
    {"fill the log", FAULT_CLOSED, 0, fault_act_fill_the_log},
    {"read everything", FAULT_CLOSED, 0, fault_act_read},
    {"search", FAULT_DIED, 0, fault_act_search},
    {"check", FAULT_DIED, 0, fault_act_check},
    {"snapshot over a merge", FAULT_CLOSED, 0, fault_act_snapshot},
    {"refresh over a merge", FAULT_CLOSED, 0, fault_act_refresh},
    {"refresh of collections and curves", FAULT_DIED, 0, fault_act_refresh_collections},
    {"read in a transaction", FAULT_DIED, 0, fault_act_read_in_a_transaction},
    {"purge of a dropped collection", FAULT_DIED, 0, fault_act_purge_what_was_dropped},
    {"create many collections", FAULT_CLOSED, 0, fault_act_create_many},
    {"open or create a collection", FAULT_DIED, 0, fault_act_open_or_create},
    {"drop and create again", FAULT_CLOSED, 0, fault_act_drop_and_create},
    {"transaction with a conflict", FAULT_CLOSED, 0, fault_act_conflict},
    {"transaction rolled back", FAULT_DIED, 0, fault_act_rollback},
    {"scan over a merge", FAULT_CLOSED, 0, fault_act_scan},
    {"get and count", FAULT_DIED, 1, fault_act_get_and_count},
    {"stats", FAULT_DIED, 1, fault_act_stats},
    {"search a batch", FAULT_LARGE, 0, fault_act_search_batch},
    {"groups, examples, pages and facets", FAULT_CLOSED, 0, fault_act_ask_more},
    {"calibrate", FAULT_LARGE, 0, fault_act_calibrate},
    {"reopen and go on", FAULT_CLOSED, 0, fault_act_reopen},
    {"delete most and optimize", FAULT_DIED, 0, fault_act_delete_and_optimize},
    {"prepare and commit", FAULT_CLOSED, 0, fault_act_prepare_and_commit},
    {"prepare and roll back", FAULT_DIED, 0, fault_act_prepare_and_roll_back},
    {"checkpoint while one waits", FAULT_CLOSED, 0, fault_act_checkpoint_while_one_waits},
    {"reopen while one waits", FAULT_DIED, 0, fault_act_reopen_while_one_waits},
    {"purge", FAULT_DIED, 0, fault_act_purge},
    {"purge a collection", FAULT_CLOSED, 0, fault_act_purge_a_collection},
    {"backup onto a backup", FAULT_CLOSED, 0, fault_act_backup_again},
    {"salvage", FAULT_DIED, 0, fault_act_salvage},
    {"documents", FAULT_CLOSED, 0, fault_act_documents},
    {"documents in a transaction", FAULT_DIED, 0, fault_act_documents_in_a_transaction},
    {"documents in segments", FAULT_CLOSED, 0, fault_act_documents_in_segments},
    {"prepared documents", FAULT_DIED, 0, fault_act_prepared_documents},
    {"salvage of documents", FAULT_CLOSED, 0, fault_act_salvage_documents}};

#define FAULT_SCENARIOS (sizeof fault_scenarios / sizeof fault_scenarios[0])

/* 1 when a closed database holds no descriptor and no mapping. */
static inline int fault_vfs_is_balanced(const struct fault_run *run)
{
    if (run->db != NULL || (run->fs->open_handles == 0 && run->fs->maps == 0))
        return 1;
    fprintf(stderr, "    %lld handles and %lld mappings are left\n",
            (long long)run->fs->open_handles, (long long)run->fs->maps);
    return 0;
}

static inline int fault_memory_is_balanced(const struct fault_run *run)
{
    const struct fault_memory *memory = run->memory;
    if (run->db != NULL ||
        (memory->balance == 0 && memory->blocks == 0 && memory->wrong_sizes == 0))
        return 1;
    fprintf(stderr, "    %lld bytes in %lld blocks left, %d wrong sizes\n",
            (long long)memory->balance, (long long)memory->blocks, memory->wrong_sizes);
    return 0;
}

/* In slow builds only each step-th call fails; in long scenarios, too, unless OMENDB_TEST_SCALE is
 * above 1. */
static inline uint64_t fault_step(uint64_t calls, uint64_t most)
{
    const double scale = support_scale();
    const uint64_t step = scale >= 1.0 ? 1 : (uint64_t)(1.0 / scale);
    return scale > 1.0 || calls / step <= most ? step : calls / most + 1;
}

/* Runs `work` for every scenario whose name contains `filter`, with `ways` shards for each, and
 * prints how many runs each took. A shard's number is scenario * ways + way; its result a uint64_t,
 * the runs. Returns the failures. */
static inline int fault_run_all(const char *filter, uint64_t ways, parallel_work work)
{
    const uint64_t shards = FAULT_SCENARIOS * ways;
    uint64_t *runs = parallel_memory(shards * sizeof *runs), sum = 0;
    const int bad = parallel_run(shards, 1, work, sizeof *runs, runs, filter);
    for (size_t i = 0; i < FAULT_SCENARIOS; i++) {
        uint64_t of_scenario = 0;
        for (uint64_t way = 0; way < ways; way++)
            of_scenario += runs[i * ways + way];
        if (of_scenario > 0)
            printf("  %-32s %6llu runs\n", fault_scenarios[i].name,
                   (unsigned long long)of_scenario);
        sum += of_scenario;
    }
    printf("  %llu runs\n", (unsigned long long)sum);
    munmap(runs, shards * sizeof *runs);
    return bad;
}

/* Opens and acts as the scenario says; `arm` is called where its faults begin. */
static inline int fault_play(struct fault_run *run, const struct fault_scenario *scenario,
                             void (*arm)(struct fault_run *run))
{
    if (scenario->opening_fails)
        arm(run);
    const int status = fault_open(run);
    if (status != OMENDB_OK)
        return status;
    if (run->reference) {
        const int read = support_digest(run->db, NULL, &run->states[0]);
        if (read != OMENDB_OK)
            return read;
    }
    if (!scenario->opening_fails)
        arm(run);
    return scenario->act(run);
}

#define FAULT_EXTRA_ID 54321

/* The fault is over: a handle that was not poisoned takes one more record, behind whatever a failed
 * append left. */
static inline void fault_extra_put(struct fault_run *run)
{
    if (run->docs != NULL)
        run->extra = support_put(run->docs, NULL, FAULT_EXTRA_ID, 1, FAULT_DOCS) == OMENDB_OK;
}

/* After reopening: takes that record away again. OMENDB_NOTFOUND: it was lost. */
static inline int fault_extra_take(omendb *db)
{
    omendb_collection *docs = NULL;
    int status = omendb_collection_open(db, "docs", NULL, &docs);
    if (status == OMENDB_OK)
        status = omendb_delete(docs, NULL, FAULT_EXTRA_ID);
    omendb_collection_close(docs);
    return status;
}

/* 1 when `digest` is a state that a database may have after the run; `failed`: result of the run.
 */
static inline int fault_state_is_legal(const struct fault_run *run, int failed, uint64_t digest)
{
    const int nothing_was_done = failed == OMENDB_OK || failed == OMENDB_NOMEM ||
                                 failed == OMENDB_FULL || failed == OMENDB_BUSY ||
                                 failed == OMENDB_POISONED;
    if (digest == run->states[run->acknowledged])
        return 1;
    return !nothing_was_done && run->committing && digest == run->states[run->acknowledged + 1];
}

#endif
