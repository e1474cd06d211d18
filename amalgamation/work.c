/* work.c: background threads, and who does their work where there are none.
 *
 * Units, most urgent first: a checkpoint when the log is long, or dead bytes wait for one; copying
 * segments that are searched often into memory (it takes milliseconds, and beside a writer there is
 * always something to link), and readying collections that are only searched for a merge into one
 * segment; linking rows of memtables, some hundred at a time; a share of a parallel job (a batch of
 * queries, the building of a merge); a look for dead bytes (space.c); a merge; asking whether
 * readers of other processes have gone, of whom nobody is told. One thread at a time copies. One
 * has the right to merge, and spreads the building over the others; where a collection is searched
 * beside a writer it begins before all is linked, as every segment more is a graph that each search
 * walks. A thread in a parallel job leaves it when something more urgent turns up.
 *
 * With threads = 0 the queues fill all the same and omendb_work empties them; a writer that is over
 * a limit does the work itself. */
#include "database.h"

#include <stdio.h>
#include <string.h>

#define WORK_INDEX_ROWS 256
#define WORK_POLL_US    1000
/* Times tail_limit: rows that wait for a merge slow writers from the first on, and stop them at the
 * second. */
#define WORK_SEALED_TAILS   4
#define WORK_TAILS_AT_MOST  16
#define WORK_SHORT_DELAY_US 1000000
/* While a collection is searched: for how long after a search told of itself; the part of
 * tail_limit at which its writers wait for linking; bytes a second that they are not slowed below.
 */
#define WORK_SEARCHED_US   1000000
#define WORK_SEARCHED_PART 32
#define WORK_LEAST_RATE    (UINT64_C(256) << 10)
#define WORK_DRIFTED_PART  4       /* of tail_limit */
#define WORK_QUIET_US      1000000 /* between two looks at what was added; quiet: not more than */
#define WORK_QUIET_PART    4096    /* one row in so many */
#define WORK_COLLECT_US    1000000 /* between two questions whether readers have gone */
/* What a call that lacks memory has filled in vain asks for checkpoints, and these for merges: that
 * one has ended is worth so many more tries, each after twice the time. */
#define WORK_MERGED_TRIES 8

struct work_job {
    struct work_job *next;
    int (*fn)(void *context, uint64_t index);
    void *context;
    uint64_t count;
    _Atomic uint64_t at; /* fetch_add: each index once. What a share did is seen by who takes the
                          * work mutex after `active` was counted down under it */
    _Atomic int code;    /* written under the work mutex; loaded without it to end early */
    uint32_t active;     /* threads inside; work mutex */
    char error[ERROR_TEXT_BYTES]; /* of the first failure; work mutex */
};

struct work_queue {
    struct collection *head, *tail;
};

struct work_state {
    omendb *db;
    struct platform_mutex mutex;
    struct platform_condition
        condition; /* something to do, or a job's thread left, or a merge ended */
    struct platform_thread *threads;
    uint32_t thread_count;
    uint32_t started;
    uint32_t stopping;
    uint32_t checkpointing;
    uint64_t retry_bytes; /* of log, at which a checkpoint that failed is tried again */
    /* The atomics here are hints: a writer slowed or a checkpoint made a moment early or late.
     * Memory in use, but for copies for speed, after the last checkpoint, or the least since: what
     * came on top is what the next one can give back. */
    _Atomic uint64_t settled_bytes;
    _Atomic uint32_t merge_starved; /* 1: the last merge failed for want of memory */
    _Atomic uint32_t
        drifted; /* 1: memtables that are searched exactly, for ever, are over a limit */
    _Atomic uint32_t look_due;     /* 1: space.c has something to look at */
    _Atomic uint32_t space_over;   /* 1: the last look found a quarter of the files dead */
    _Atomic uint64_t space_commit; /* a checkpoint of it gives space back; 0: none does */
    uint64_t collected_us;         /* when files that readers held were last asked after */
    uint32_t merging;
    uint32_t heating;
    uint32_t looking;
    _Atomic uint64_t merges_ended; /* however they ended */
    struct work_queue queues[WORK_QUEUES];
    struct work_job *jobs;
};

/* ------------------------------------------------------------------ queues */

static uint64_t work_now_us(const omendb *db)
{
    return db->storage.vfs->now_us(db->storage.vfs->context);
}

/* Queues are linked through the collections; each entry holds a reference. Work mutex. */
static void work_push(struct work_state *work, enum work_queue_kind kind,
                      struct collection *collection)
{
    struct work_queue *queue = &work->queues[kind];
    collection->queue_next[kind] = NULL;
    if (queue->tail != NULL)
        queue->tail->queue_next[kind] = collection;
    else
        queue->head = collection;
    queue->tail = collection;
    atomic_store(&collection->queued[kind], 1);
}

/* What was dropped is not queued any more: whoever drops marks it first, then looks for it in the
 * queues. Work mutex. */
static int work_may_push(const struct collection *collection, enum work_queue_kind kind)
{
    return !atomic_load(&collection->queued[kind]) && !atomic_load(&collection->dropped);
}

static struct collection *work_pop(struct work_state *work, enum work_queue_kind kind)
{
    struct work_queue *queue = &work->queues[kind];
    struct collection *collection = queue->head;
    if (collection == NULL)
        return NULL;
    queue->head = collection->queue_next[kind];
    if (queue->head == NULL)
        queue->tail = NULL;
    atomic_store(&collection->queued[kind], 0);
    return collection;
}

static void work_notice(struct collection *collection, enum work_queue_kind kind)
{
    struct work_state *work = collection->db->work;
    platform_mutex_lock(&work->mutex);
    if (work_may_push(collection, kind)) {
        work_push(work, kind, collection_reference(collection));
        platform_condition_broadcast(&work->condition);
    }
    platform_mutex_unlock(&work->mutex);
}

OMENDB_INTERNAL void work_notice_index(struct collection *collection)
{
    if (!atomic_load(&collection->queued[WORK_INDEX]))
        work_notice(collection, WORK_INDEX);
}

OMENDB_INTERNAL void work_notice_merge(struct collection *collection)
{
    /* Without threads it may be queued for long; asking tells space.c all the same. */
    int is_queued = atomic_load(&collection->queued[WORK_MERGE]) != 0;
    if ((!is_queued || collection->db->work->thread_count == 0) && compact_wanted(collection))
        work_notice(collection, WORK_MERGE);
}

OMENDB_INTERNAL void work_notice_heat(struct collection *collection)
{
    work_notice(collection, WORK_HEAT);
}

/* 1: it was in the queue, whose reference is the caller's now. Work mutex. */
static int work_remove(struct work_state *work, enum work_queue_kind kind,
                       struct collection *collection)
{
    struct work_queue *queue = &work->queues[kind];
    struct collection *before = NULL, *at = queue->head;
    if (!atomic_load(&collection->queued[kind]))
        return 0;
    for (; at != collection; at = at->queue_next[kind])
        before = at;
    if (before == NULL)
        queue->head = collection->queue_next[kind];
    else
        before->queue_next[kind] = collection->queue_next[kind];
    if (queue->tail == collection)
        queue->tail = before;
    atomic_store(&collection->queued[kind], 0);
    return 1;
}

OMENDB_INTERNAL void work_forget_dropped(struct collection *collection)
{
    struct work_state *work = collection->db->work;
    for (int kind = 0; kind < WORK_QUEUES; kind++) {
        platform_mutex_lock(&work->mutex);
        int removed = work_remove(work, (enum work_queue_kind)kind, collection);
        platform_mutex_unlock(&work->mutex);
        if (removed)
            collection_release(collection);
    }
}

OMENDB_INTERNAL int work_notice_reading(struct collection *collection)
{
    const omendb *db = collection->db;
    struct version *version = version_acquire(collection);
    uint64_t largest, rows = search_total_rows(version, &largest);
    version_release(version);
    if (db->read_only || db->in_memory || !compact_would_settle(rows, largest))
        return 0;
    uint64_t now = work_now_us(db), looked = atomic_load(&collection->looked_us);
    if (now - looked < WORK_QUIET_US ||
        !atomic_compare_exchange_strong(&collection->looked_us, &looked, now))
        return 1;
    uint64_t before = atomic_exchange(&collection->looked_rows, rows);
    if (before <= rows && rows - before <= rows / WORK_QUIET_PART &&
        atomic_exchange(&collection->settled_rows, rows) != rows)
        work_notice_heat(collection);
    return 1;
}

OMENDB_INTERNAL void work_notice_searching(struct collection *collection)
{
    atomic_store(&collection->searched_us, work_now_us(collection->db));
}

OMENDB_INTERNAL int work_is_searched(const struct collection *collection)
{
    uint64_t searched = atomic_load(&collection->searched_us);
    return searched != 0 && work_now_us(collection->db) - searched < WORK_SEARCHED_US;
}

OMENDB_INTERNAL void work_notice_log(omendb *db)
{
    platform_mutex_lock(&db->work->mutex);
    platform_condition_broadcast(&db->work->condition);
    platform_mutex_unlock(&db->work->mutex);
}

OMENDB_INTERNAL void work_notice_space(omendb *db)
{
    if (db->read_only || db->in_memory || atomic_exchange(&db->work->look_due, 1) != 0)
        return;
    work_notice_log(db);
}

OMENDB_INTERNAL void work_notice_drop(struct collection *collection)
{
    omendb *db = collection->db;
    uint64_t bytes = space_collection_bytes(collection);
    if (atomic_fetch_add(&db->dropped_bytes, bytes) + bytes >= atomic_load(&db->dropped_step))
        work_notice_space(db);
}

/* ------------------------------------------------------------------ units */

/* Nothing is lost when background work fails: what it was to do stays to be done. */
static void work_report(omendb *db, const char *what, int code)
{
    char text[ERROR_TEXT_BYTES];
    if (code == OMENDB_OK || code == OMENDB_DONE)
        return;
    snprintf(text, sizeof text, "%s put off: %.440s", what, error_text());
    database_log(db, code, text);
}

/* At least `quarters` of what writers may use is in use, and a checkpoint would give an eighth
 * back. A database in memory has nowhere to move its rows to. */
static int work_is_pressed(const omendb *db, uint64_t quarters)
{
    const struct memory *memory = &db->memory;
    if (memory->limit == 0 || db->in_memory || atomic_load(&db->log_bytes) == 0)
        return 0;
    uint64_t allowed = memory->limit - memory->reserve, used = atomic_load(&memory->used);
    uint64_t firm = memory_used_firmly(memory), settled = atomic_load(&db->work->settled_bytes);
    if (firm < settled)
        atomic_store(&db->work->settled_bytes, settled = firm);
    return used >= allowed / 4 * quarters && firm - settled >= allowed / 8;
}

OMENDB_INTERNAL int work_checkpoint(omendb *db, int force)
{
    uint64_t made = atomic_load(&db->checkpoints), asked = atomic_load(&db->work->space_commit);
    memory_begin_maintenance();
    int code = checkpoint_run(db, force);
    if (code == OMENDB_NOMEM && hot_pause(db)) {
        code = checkpoint_run(db, force);
        hot_resume(db);
    }
    memory_end_maintenance();
    if (code == OMENDB_OK && (force || atomic_load(&db->checkpoints) != made))
        atomic_store(&db->work->settled_bytes, memory_used_firmly(&db->memory));
    /* That of a copy of prepared transactions, which is visible, is not a checkpoint's. */
    if (code == OMENDB_OK && force)
        atomic_compare_exchange_strong(&db->work->space_commit, &asked, 0);
    if (atomic_load(&db->checkpoints) != made)
        work_notice_space(db);
    return code;
}

static int work_is_merging(struct work_state *work)
{
    platform_mutex_lock(&work->mutex);
    int merging = work->merging != 0;
    platform_mutex_unlock(&work->mutex);
    return merging;
}

/* Until the merge has ended or given something back, or the time is over. */
static void work_await_merge(omendb *db, uint64_t before, uint64_t until_us)
{
    do {
        platform_sleep_us(WORK_POLL_US);
    } while (work_is_merging(db->work) && atomic_load(&db->memory.used) >= before &&
             work_now_us(db) < until_us);
}

/* A try for no other reason than that a merge has ended, which may have given back what a
 * checkpoint does not. */
static int work_try_after_merge(struct work_wait *wait)
{
    if (wait->merged == WORK_MERGED_TRIES)
        return 0;
    platform_sleep_us((uint64_t)WORK_POLL_US << wait->merged++);
    return 1;
}

/* A checkpoint for a call; 1: worth another try. `text`: why the call has no memory. */
static int work_relieve_by_checkpoint(omendb *db, struct work_wait *wait, int in_time, int merged,
                                      const char *text)
{
    int first = wait->checkpoints == 1;
    uint64_t before = atomic_load(&db->memory.used);
    int code = work_checkpoint(db, 1);
    if (code != OMENDB_NOMEM && code != OMENDB_OK && first)
        return 1; /* trying again may tell the caller why */
    error_adopt(OMENDB_NOMEM, text);
    int merging = work_is_merging(db->work);
    if (code == OMENDB_NOMEM && in_time && merging) {
        work_await_merge(db, before, wait->until_us);
        return 1;
    }
    /* Where another thread was at a checkpoint this waited for it; it may be over already, so the
     * first time is worth a try. What it freed, a merge may have taken: that will come back. */
    return code == OMENDB_OK &&
           (first || (in_time && (merging || atomic_load(&db->memory.used) < before ||
                                  (merged && work_try_after_merge(wait)))));
}

OMENDB_INTERNAL int work_relieve(omendb *db, struct work_wait *wait)
{
    char text[ERROR_TEXT_BYTES];
    uint64_t now = work_now_us(db), ended = atomic_load(&db->work->merges_ended);
    int merged = ended != wait->merges_ended;
    if (db->memory.limit == 0)
        return 0;
    if (wait->until_us == 0)
        wait->until_us = now + db->stall_timeout_us;
    wait->merges_ended = ended;
    memcpy(text, error_text(), strlen(error_text()) + 1);
    scratch_drop_idle(db);
    int in_time = now < wait->until_us, pressed = work_is_pressed(db, 0);
    /* A merge gives back more than a checkpoint of little, which would only make a small segment.
     */
    if (in_time && !pressed && work_is_merging(db->work)) {
        work_await_merge(db, atomic_load(&db->memory.used), wait->until_us);
        return 1;
    }
    if (db->in_memory)
        return 0;
    if (db->read_only)
        return in_time && hot_give_back(db);
    if (wait->checkpoints != 0 && (!pressed || !in_time)) {
        /* Once whatever the time: the checkpoint may have taken all of it. */
        if ((in_time || wait->given_back++ == 0) && hot_give_back(db))
            return 1;
        error_adopt(OMENDB_NOMEM, text);
        return in_time && merged && work_try_after_merge(wait);
    }
    wait->checkpoints++;
    return work_relieve_by_checkpoint(db, wait, in_time, merged, text);
}

static int work_wants_space(const struct work_state *work)
{
    return atomic_load(&work->space_commit) > atomic_load(&work->db->checkpoint_commit);
}

/* Whether the log, dead bytes, or rows that have drifted, ask for a checkpoint; after a failed one
 * only when the log has grown by a quarter of the limit again. Work mutex. */
static int work_wants_checkpoint(const struct work_state *work)
{
    const omendb *db = work->db;
    uint64_t limit = db->wal_limit;
    if (atomic_load(&db->checkpoint_failed) != 0 && work->retry_bytes > limit)
        limit = work->retry_bytes;
    return !work->checkpointing && !db->read_only && !atomic_load(&db->poisoned) &&
           (atomic_load(&db->log_bytes) >= limit ||
            (atomic_load(&db->checkpoint_failed) == 0 &&
             (atomic_load(&work->drifted) || work_wants_space(work) || work_is_pressed(db, 2))));
}

static int work_do_checkpoint(struct work_state *work)
{
    int drifted = atomic_exchange(&work->drifted, 0) != 0;
    int force = drifted || work_wants_space(work) || work_is_pressed(work->db, 2);
    int code = work_checkpoint(work->db, force);
    work_report(work->db, "a checkpoint", code);
    platform_mutex_lock(&work->mutex);
    work->checkpointing = 0;
    work->retry_bytes =
        code == OMENDB_OK ? 0 : atomic_load(&work->db->log_bytes) + work->db->wal_limit / 4;
    platform_condition_broadcast(&work->condition);
    platform_mutex_unlock(&work->mutex);
    return code;
}

/* The first memtable that has rows to link, or NULL. */
static struct memtable *work_unindexed_memtable(const struct version *version)
{
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        struct memtable *memtable = version->memtables[i];
        if (!atomic_load(&memtable->sealed) && !memtable_has_drifted(memtable) &&
            atomic_load(&memtable->claimed) < atomic_load(&memtable->count))
            return memtable;
    }
    return NULL;
}

/* The rows of memtables that have drifted get a graph only by a merge, so from a part of tail_limit
 * on, as in segments, they ask for the checkpoint before it. */
static void work_notice_drift(struct work_state *work, const struct collection *collection,
                              const struct version *version)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        if (memtable_has_drifted(version->memtables[i]))
            rows += atomic_load(&version->memtables[i]->count);
    }
    if (rows * collection->vector_bytes * WORK_DRIFTED_PART >= work->db->tail_limit && rows != 0)
        atomic_store(&work->drifted, 1);
}

/* Links rows of the collection's memtables; queues it again when more are left. Takes the reference
 * over. */
static int work_do_index(struct work_state *work, struct collection *collection)
{
    omendb *db = work->db;
    uint64_t commit;
    uint32_t done = 0;
    int code = OMENDB_OK, more = 0;
    struct scratch *scratch = scratch_take(db);
    struct version *version = version_acquire_newest(collection, &commit);
    struct memtable *memtable = work_unindexed_memtable(version);
    work_notice_drift(work, collection, version);
    if (scratch == NULL)
        code = OMENDB_NOMEM;
    else if (memtable != NULL && !atomic_load(&collection->dropped)) {
        code = memtable_index(memtable, scratch->graph, commit, WORK_INDEX_ROWS, &done);
        more = done != 0;
    }
    version_release(version);
    scratch_give(db, scratch);
    if (more)
        work_notice_index(collection);
    work_report(db, "indexing", code);
    rest_release(collection);
    return code;
}

/* Of a collection that is only searched, moves what is in memory to a segment if it is a part that
 * counts, and has the segments merged. */
static int work_settle(struct collection *collection)
{
    omendb *db = collection->db;
    uint64_t largest, rows, growing = 0;
    struct version *version = version_acquire(collection);
    int code = OMENDB_OK;
    rows = search_total_rows(version, &largest);
    for (uint32_t i = 0; i < version->memtable_count; i++)
        growing += atomic_load(&version->memtables[i]->count);
    version_release(version);
    if (!compact_has_settled(collection, rows) || !compact_would_settle(rows, largest))
        return OMENDB_OK;
    if (compact_would_settle(largest + growing, largest))
        code = work_checkpoint(db, 1);
    work_report(db, "a checkpoint", code);
    work_notice_merge(collection);
    return code;
}

/* Copies the segments of the collection that were walked often enough. Takes the reference over. */
static int work_do_heat(struct work_state *work, struct collection *collection)
{
    omendb *db = work->db;
    struct version *version = version_acquire(collection);
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < version->segment_count && code == OMENDB_OK; i++)
        code = hot_tend(db, version->segments[i]);
    version_release(version);
    work_report(db, "a copy for speed", code);
    if (code == OMENDB_OK)
        code = work_settle(collection);
    rest_release(collection);
    return code;
}

/* Looks where bytes are dead: asks for the checkpoint that they wait for, and queues what is to be
 * merged all at once, so that small ones share a file. */
static int work_do_look(struct work_state *work)
{
    struct space_list list;
    int checkpoint = 0, over = 0;
    size_t wanted = 0;
    uint64_t visible = atomic_load(&work->db->visible_commit);
    int code = space_look(work->db, &list, &checkpoint, &over);
    if (code == OMENDB_OK)
        atomic_store(&work->space_over, (uint32_t)over);
    if (checkpoint)
        atomic_store(&work->space_commit, visible);
    for (size_t i = 0; i < list.count && code == OMENDB_OK; i++) {
        struct collection *collection = list.items[i];
        if (!compact_wanted(collection))
            continue;
        list.items[i] = list.items[wanted];
        list.items[wanted++] = collection;
    }
    platform_mutex_lock(&work->mutex);
    for (size_t i = 0; i < wanted; i++) {
        if (work_may_push(list.items[i], WORK_MERGE))
            work_push(work, WORK_MERGE, collection_reference(list.items[i]));
    }
    platform_condition_broadcast(&work->condition);
    platform_mutex_unlock(&work->mutex);
    space_free_list(work->db, &list);
    work_report(work->db, "a look for dead bytes", code);
    return code;
}

/* Whether it is time to ask if readers of other processes have gone. Work mutex. */
static int work_wants_collect(const struct work_state *work)
{
    const omendb *db = work->db;
    return !db->read_only && atomic_load(&db->retained_count) != 0 && !atomic_load(&db->poisoned) &&
           work_now_us(db) - work->collected_us >= WORK_COLLECT_US;
}

static void work_do_collect(omendb *db)
{
    platform_mutex_lock(&db->maintenance_mutex);
    collect_files(db);
    platform_mutex_unlock(&db->maintenance_mutex);
}

static uint64_t work_collection_bytes(struct collection *collection)
{
    struct version *version = version_acquire(collection);
    uint64_t rows = 0;
    for (uint32_t i = 0; i < version->segment_count; i++)
        rows += version->segments[i]->info.rows;
    version_release(version);
    return rows * collection->vector_bytes;
}

/* Takes collections off the queue: a large one alone, or many small ones. Work mutex. */
static size_t work_take_merges(struct work_state *work, struct collection **batch)
{
    size_t count = 0;
    while (count < COMPACT_BATCH && work->queues[WORK_MERGE].head != NULL) {
        int small = work_collection_bytes(work->queues[WORK_MERGE].head) < COMPACT_SMALL_BYTES;
        if (!small && count != 0)
            break;
        batch[count++] = work_pop(work, WORK_MERGE);
        if (!small)
            break;
    }
    return count;
}

static int work_do_merge(struct work_state *work, struct collection **batch, size_t count)
{
    int merged = 0;
    int code = compact_run(work->db, batch, count, COMPACT_BY_POLICY, NULL, NULL, &merged);
    atomic_store(&work->merge_starved, code == OMENDB_NOMEM);
    work_report(work->db, "a merge", code);
    for (size_t i = 0; i < count; i++) {
        if (code == OMENDB_OK && merged)
            work_notice_merge(batch[i]);
        rest_release(batch[i]);
    }
    if (code == OMENDB_OK && merged)
        work_notice_space(work->db);
    work_merge_end(work->db);
    return code == OMENDB_DONE ? OMENDB_OK : code;
}

/* A share of a parallel job; leaves when something more urgent is waiting. Work mutex held on entry
 * and exit. */
static void work_join_job(struct work_state *work, struct work_job *job, int is_worker)
{
    job->active++;
    while (!(is_worker && (work->queues[WORK_INDEX].head != NULL || work_wants_checkpoint(work)))) {
        platform_mutex_unlock(&work->mutex);
        uint64_t index = atomic_fetch_add(&job->at, 1);
        int code = OMENDB_OK, run = index < job->count && atomic_load(&job->code) == OMENDB_OK;
        if (run)
            code = job->fn(job->context, index);
        platform_mutex_lock(&work->mutex);
        if (code != OMENDB_OK && atomic_load(&job->code) == OMENDB_OK) {
            const char *text = error_text();
            size_t length = strlen(text) < sizeof job->error ? strlen(text) : sizeof job->error - 1;
            memcpy(job->error, text, length);
            job->error[length] = 0;
            atomic_store(&job->code, code);
        }
        if (!run)
            break;
    }
    job->active--;
    if (job->active == 0)
        platform_condition_broadcast(&work->condition);
}

static struct work_job *work_open_job(const struct work_state *work)
{
    struct work_job *job = work->jobs;
    while (job != NULL &&
           (atomic_load(&job->at) >= job->count || atomic_load(&job->code) != OMENDB_OK))
        job = job->next;
    return job;
}

OMENDB_INTERNAL int work_parallel(omendb *db, uint64_t count,
                                  int (*fn)(void *context, uint64_t index), void *context)
{
    struct work_state *work = db->work;
    struct work_job job = {.fn = fn, .context = context, .count = count};
    platform_mutex_lock(&work->mutex);
    job.next = work->jobs;
    work->jobs = &job;
    platform_condition_broadcast(&work->condition);
    work_join_job(work, &job, 0);
    struct work_job **link = &work->jobs;
    while (*link != &job)
        link = &(*link)->next;
    *link = job.next;
    while (job.active != 0)
        platform_condition_wait(&work->condition, &work->mutex);
    platform_mutex_unlock(&work->mutex);
    int code = atomic_load(&job.code);
    return code == OMENDB_OK ? code : error_adopt(code, job.error);
}

/* Units that one thread at a time does. Work mutex held on entry and exit. */

static int work_checkpoint_alone(struct work_state *work)
{
    work->checkpointing = 1;
    platform_mutex_unlock(&work->mutex);
    int code = work_do_checkpoint(work);
    platform_mutex_lock(&work->mutex);
    return code;
}

static int work_wants_look(const struct work_state *work)
{
    return !work->looking && atomic_load(&work->look_due);
}

static int work_look_alone(struct work_state *work)
{
    work->looking = 1;
    atomic_store(&work->look_due, 0);
    platform_mutex_unlock(&work->mutex);
    int code = work_do_look(work);
    if (code != OMENDB_OK) /* nobody else will ask for it again */
        atomic_store(&work->look_due, 1);
    platform_mutex_lock(&work->mutex);
    work->looking = 0;
    return code;
}

static int work_wants_merge(const struct work_state *work)
{
    return !work->merging && work->queues[WORK_MERGE].head != NULL && !work->db->read_only;
}

/* For the sake of searches, and while another thread links. */
static int work_merges_before_linking(const struct work_state *work)
{
    return work->thread_count > 1 && work_wants_merge(work) &&
           work_is_searched(work->queues[WORK_MERGE].head);
}

static int work_merge_alone(struct work_state *work)
{
    struct collection *batch[COMPACT_BATCH];
    work->merging = 1;
    size_t count = work_take_merges(work, batch);
    platform_mutex_unlock(&work->mutex);
    int code = work_do_merge(work, batch, count);
    platform_mutex_lock(&work->mutex);
    return code;
}

/* Of the units those that give space back; *did = 0: none does. Work mutex. */
static int work_do_space(struct work_state *work, int *did)
{
    *did = 1;
    if (work_wants_look(work))
        return work_look_alone(work);
    if (atomic_load(&work->space_over) && work_wants_space(work) && work_wants_checkpoint(work))
        return work_checkpoint_alone(work);
    if (atomic_load(&work->space_over) && work_wants_merge(work))
        return work_merge_alone(work);
    *did = 0;
    return OMENDB_OK;
}

/* Does the most urgent unit. Work mutex held on entry and exit. */
static int work_do_one(struct work_state *work, int *did)
{
    struct work_job *job;
    int code = OMENDB_OK;
    *did = 1;
    if (work_wants_checkpoint(work))
        return work_checkpoint_alone(work);
    struct collection *collection;
    if (!work->heating && (collection = work_pop(work, WORK_HEAT)) != NULL) {
        work->heating = 1;
        platform_mutex_unlock(&work->mutex);
        code = work_do_heat(work, collection);
        platform_mutex_lock(&work->mutex);
        work->heating = 0;
        /* This may be a thread of the caller, which does not come back for what is left. */
        if (work->queues[WORK_HEAT].head != NULL)
            platform_condition_broadcast(&work->condition);
        return code;
    }
    if (work_merges_before_linking(work))
        return work_merge_alone(work);
    if ((collection = work_pop(work, WORK_INDEX)) != NULL) {
        platform_mutex_unlock(&work->mutex);
        code = work_do_index(work, collection);
        platform_mutex_lock(&work->mutex);
        return code;
    }
    if ((job = work_open_job(work)) != NULL) {
        work_join_job(work, job, 1);
        return OMENDB_OK;
    }
    if (work_wants_look(work))
        return work_look_alone(work);
    if (work_wants_merge(work))
        return work_merge_alone(work);
    if (work_wants_collect(work)) {
        work->collected_us = work_now_us(work->db);
        platform_mutex_unlock(&work->mutex);
        work_do_collect(work->db);
        platform_mutex_lock(&work->mutex);
        return OMENDB_OK;
    }
    *did = 0;
    return OMENDB_OK;
}

OMENDB_INTERNAL int work_step(omendb *db, int *did)
{
    platform_mutex_lock(&db->work->mutex);
    int code = work_do_one(db->work, did);
    platform_mutex_unlock(&db->work->mutex);
    return code;
}

OMENDB_INTERNAL int work_merge_begin(omendb *db,
                                     int (*progress)(void *context, uint64_t done, uint64_t total),
                                     void *context)
{
    struct work_state *work = db->work;
    int code = OMENDB_OK;
    platform_mutex_lock(&work->mutex);
    while (work->merging && code == OMENDB_OK) {
        platform_condition_wait_for(&work->condition, &work->mutex, WORK_POLL_US * 100);
        platform_mutex_unlock(&work->mutex);
        uint64_t done = atomic_load(&db->merge_done), rows = atomic_load(&db->merge_rows);
        if (progress != NULL && rows != 0 && progress(context, done, rows) != 0)
            code = error_set(OMENDB_DONE, "stopped by the progress function");
        platform_mutex_lock(&work->mutex);
    }
    if (code == OMENDB_OK)
        work->merging = 1;
    platform_mutex_unlock(&work->mutex);
    return code;
}

OMENDB_INTERNAL void work_merge_end(omendb *db)
{
    struct work_state *work = db->work;
    atomic_fetch_add(&work->merges_ended, 1);
    platform_mutex_lock(&work->mutex);
    work->merging = 0;
    platform_condition_broadcast(&work->condition);
    platform_mutex_unlock(&work->mutex);
}

/* ------------------------------------------------------------------ slowing writers */

/* How a writer is to be slowed. */
enum work_delay {
    WORK_NO_DELAY,
    WORK_SHORT_DELAY, /* rows wait for a merge; it is going on, and the writer need not see its end
                       */
    WORK_FULL_DELAY   /* until it is better, or stall_timeout */
};

static enum work_delay work_delay_for(struct collection *collection)
{
    omendb *db = collection->db;
    struct version *version = version_acquire(collection);
    uint64_t growing = version_growing_tail_bytes(version, collection->vector_bytes);
    uint64_t all = version_unindexed_bytes(version, collection->vector_bytes);
    version_release(version);
    if (growing >= db->tail_limit || all / WORK_TAILS_AT_MOST >= db->tail_limit ||
        atomic_load(&db->log_bytes) >= db->wal_limit * 2 || work_is_pressed(db, 3))
        return WORK_FULL_DELAY;
    /* What was sealed before it was linked gets room for some checkpoints. */
    return all / WORK_SEALED_TAILS >= db->tail_limit ? WORK_SHORT_DELAY : WORK_NO_DELAY;
}

/* A writer without background threads brings things under the limits itself. */
static int work_throttle_alone(struct collection *collection)
{
    omendb *db = collection->db;
    int code = OMENDB_OK, did = 1;
    while (code == OMENDB_OK && did &&
           (work_delay_for(collection) != WORK_NO_DELAY ||
            atomic_load(&db->log_bytes) >= db->wal_limit)) {
        if (atomic_load(&db->log_bytes) >= db->wal_limit || work_is_pressed(db, 2))
            code = work_checkpoint(db, 1);
        else
            code = work_step(db, &did);
    }
    return code;
}

OMENDB_INTERNAL void work_reclaim(omendb *db)
{
    struct work_state *work = db->work;
    int code = OMENDB_OK, did = 1;
    if (work->thread_count != 0 ||
        (!atomic_load(&work->look_due) && !atomic_load(&work->space_over)))
        return;
    platform_mutex_lock(&work->mutex);
    while (code == OMENDB_OK && did)
        code = work_do_space(work, &did);
    platform_mutex_unlock(&work->mutex);
}

/* What a writer waited for in vain. */
static int work_refuse(const struct collection *collection, uint64_t waited)
{
    const omendb *db = collection->db;
    const char *reason = "indexing is behind by more than tail_limit; wait, call "
                         "omendb_optimize, or raise it";
    if (work_is_pressed(db, 3))
        reason = "checkpoints do not free memory as fast as it fills up; raise memory_limit";
    else if (atomic_load(&db->log_bytes) >= db->wal_limit * 2)
        reason = "checkpoints are behind by more than wal_limit; write slower or raise it";
    else if (atomic_load(&db->work->merge_starved))
        reason = "indexing is behind, as a merge lacks memory; raise memory_limit";
    return error_set(OMENDB_BUSY, "collection \"%s\": after waiting for %llu ms: %s",
                     collection->name, (unsigned long long)(waited / 1000), reason);
}

/* Whether the writer, who has waited so long, is to wait on for linking: each search compares what
 * is not linked one by one. */
static int work_holds_for_searches(struct collection *collection, uint64_t bytes, uint64_t waited)
{
    struct version *version = version_acquire(collection);
    uint64_t tail = version_linking_tail_bytes(version, collection->vector_bytes);
    version_release(version);
    return tail >= collection->db->tail_limit / WORK_SEARCHED_PART &&
           (double)waited < (double)bytes * 1e6 / (double)WORK_LEAST_RATE;
}

/* Holds a writer back while the collection is searched. What it adds is linked sooner or later, so
 * where the processor is short that takes nothing from it in the long run. */
static void work_make_way(struct collection *collection, uint64_t bytes)
{
    uint64_t waited = 0, most = collection->db->stall_timeout_us;
    while (waited < most && work_is_searched(collection) &&
           work_holds_for_searches(collection, bytes, waited)) {
        work_notice_index(collection);
        platform_sleep_us(WORK_POLL_US);
        waited += WORK_POLL_US;
    }
}

OMENDB_INTERNAL int work_throttle(struct collection *collection, uint64_t bytes)
{
    omendb *db = collection->db;
    if (bytes == 0)
        return OMENDB_OK;
    if (db->work->thread_count == 0)
        return work_throttle_alone(collection);
    uint64_t waited = 0;
    enum work_delay delay;
    while ((delay = work_delay_for(collection)) != WORK_NO_DELAY) {
        if (delay == WORK_SHORT_DELAY && waited >= WORK_SHORT_DELAY_US)
            break;
        uint32_t failed = atomic_load(&db->checkpoint_failed);
        if (failed != 0 &&
            (atomic_load(&db->log_bytes) >= db->wal_limit * 2 || waited >= db->stall_timeout_us)) {
            /* The background could not, and what it sealed cannot be indexed before a checkpoint is
             * made; whoever writes is told why, by trying once more in this thread. */
            int code = work_checkpoint(db, 1);
            if (code != OMENDB_OK)
                return code;
        }
        if (waited >= db->stall_timeout_us)
            return work_refuse(collection, waited);
        work_notice_index(collection);
        work_notice_merge(collection);
        platform_sleep_us(WORK_POLL_US);
        waited += WORK_POLL_US;
    }
    work_make_way(collection, bytes);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ threads */

static void *work_run(void *argument)
{
    struct work_state *work = argument;
    platform_mutex_lock(&work->mutex);
    while (!work->stopping) {
        int did, code = work_do_one(work, &did);
        if (work->stopping)
            break;
        if (!did && atomic_load(&work->db->retained_count) != 0)
            platform_condition_wait_for(&work->condition, &work->mutex, WORK_COLLECT_US);
        else if (!did)
            platform_condition_wait(&work->condition, &work->mutex);
        else if (code != OMENDB_OK)
            platform_condition_wait_for(&work->condition, &work->mutex, WORK_POLL_US * 100);
    }
    platform_mutex_unlock(&work->mutex);
    return NULL;
}

OMENDB_INTERNAL int work_create(omendb *db, int32_t threads)
{
    struct work_state *work = memory_zalloc(&db->memory, sizeof *work);
    if (work == NULL)
        return OMENDB_NOMEM;
    work->db = db;
    db->work = work;
    work->thread_count = threads < 0 ? platform_cores() : (uint32_t)threads;
    int code = platform_mutex_init(&work->mutex);
    if (code == OMENDB_OK)
        code = platform_condition_init(&work->condition);
    return code;
}

OMENDB_INTERNAL int work_start(omendb *db)
{
    struct work_state *work = db->work;
    int code = OMENDB_OK;
    work_notice_space(db);
    if (work->thread_count == 0)
        return OMENDB_OK;
    work->threads = memory_zalloc(&db->memory, work->thread_count * sizeof *work->threads);
    if (work->threads == NULL)
        return OMENDB_NOMEM;
    for (; work->started < work->thread_count && code == OMENDB_OK;
         work->started += code == OMENDB_OK)
        code = platform_thread_start(&work->threads[work->started], work_run, work);
    return code;
}

OMENDB_INTERNAL void work_stop(omendb *db)
{
    struct work_state *work = db->work;
    if (work == NULL)
        return;
    atomic_store(&db->stopping, 1);
    platform_mutex_lock(&work->mutex);
    work->stopping = 1;
    platform_condition_broadcast(&work->condition);
    platform_mutex_unlock(&work->mutex);
    for (uint32_t i = 0; i < work->started; i++)
        platform_thread_join(&work->threads[i]);
    work->started = 0;
}

OMENDB_INTERNAL void work_destroy(omendb *db)
{
    struct work_state *work = db->work;
    struct collection *collection;
    if (work == NULL)
        return;
    for (int kind = 0; kind < WORK_QUEUES; kind++) {
        while ((collection = work_pop(work, (enum work_queue_kind)kind)) != NULL)
            collection_release(collection);
    }
    platform_condition_destroy(&work->condition);
    platform_mutex_destroy(&work->mutex);
    memory_free(&db->memory, work->threads,
                work->threads == NULL ? 0 : work->thread_count * sizeof *work->threads);
    memory_free(&db->memory, work, sizeof *work);
    db->work = NULL;
}

#undef WORK_INDEX_ROWS
#undef WORK_POLL_US
#undef WORK_SEALED_TAILS
#undef WORK_TAILS_AT_MOST
#undef WORK_SHORT_DELAY_US
#undef WORK_SEARCHED_US
#undef WORK_SEARCHED_PART
#undef WORK_LEAST_RATE
#undef WORK_DRIFTED_PART
#undef WORK_QUIET_US
#undef WORK_QUIET_PART
#undef WORK_COLLECT_US
