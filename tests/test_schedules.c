/* The schedules of two and three threads at the places where they meet: commit, flush, checkpoint,
 * log reset, install of a merge, release of a snapshot, close (schedule.h). Every schedule of a
 * scenario up to a number of preemptions is run, on files in memory, with checks on the way and at
 * the end.
 *
 *     test_schedules [part of a name]       all of bound 2; sampled where that is over --most
 *         --bound N --most N --samples N    a campaign (make schedules)
 *         --replay CHOICES                  one schedule of the scenario, as a failure printed it
 *         --planted N                       with a bug (test_schedules_planted.sh) */
#include "schedule.h"

#include "crash_vfs.h"

#ifndef SCHEDULE_LIBRARY
#include "omendb.c"
#else
#include SCHEDULE_LIBRARY
#endif

#define DIM     4
#define VECTOR  (DIM * sizeof(float))
#define MISSING (-1)

/* ------------------------------------------------------------------------------------------------
 * memory: what is released is filled and not used again in the same schedule, so that a use after
 * it is a wild pointer, or is seen at the end */

#define ARENA_BYTES  ((size_t)1 << 30)
#define ARENA_GONE   0xd9
#define ARENA_FILLED 4096 /* of a block, at most: buffers are large, what is shared is small */

struct arena_block {
    size_t size;
    struct arena_block *released; /* the one that was released before */
};

static struct {
    uint8_t *bytes;
    size_t used;
    size_t held; /* blocks */
    struct arena_block *released;
} arena;

static size_t arena_filled(const struct arena_block *block)
{
    return block->size < ARENA_FILLED ? block->size : ARENA_FILLED;
}

static void *arena_alloc(void *context, size_t size)
{
    const size_t total = sizeof(struct arena_block) + (size + 15) / 16 * 16;
    (void)context;
    if (total > ARENA_BYTES - arena.used)
        return NULL;
    struct arena_block *block = (struct arena_block *)(void *)(arena.bytes + arena.used);
    arena.used += total;
    arena.held++;
    block->size = size;
    return block + 1;
}

static void arena_release(void *context, void *memory, size_t size)
{
    struct arena_block *block = (struct arena_block *)memory - 1;
    (void)context;
    SCHEDULE_EQUAL(size, block->size);
    memset(memory, ARENA_GONE, arena_filled(block));
    block->released = arena.released;
    arena.released = block;
    arena.held--;
}

static void *arena_resize(void *context, void *memory, size_t old_size, size_t new_size)
{
    void *moved = arena_alloc(context, new_size);
    if (moved == NULL)
        return NULL;
    memcpy(moved, memory, old_size < new_size ? old_size : new_size);
    arena_release(context, memory, old_size);
    return moved;
}

/* Nothing is held, and nobody wrote to what was released. */
static void arena_check(void)
{
    SCHEDULE_EQUAL(arena.held, 0);
    for (const struct arena_block *block = arena.released; block != NULL; block = block->released) {
        const uint8_t *bytes = (const uint8_t *)(block + 1);
        const size_t filled = arena_filled(block);
        if (filled != 0)
            SCHEDULE_CHECK(bytes[0] == ARENA_GONE && memcmp(bytes, bytes + 1, filled - 1) == 0);
    }
}

static void arena_reset(void)
{
    if (arena.bytes == NULL)
        arena.bytes = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena.bytes == MAP_FAILED)
        abort();
    arena.used = arena.held = 0;
    arena.released = NULL;
}

/* ------------------------------------------------------------------------------------------------
 * files: crash_vfs.h, with a point in each sync and before each rename and lock, and a record of
 * what a sync has covered: what was written when it began. A write or an unlink is seen by no other
 * thread before the next point. */

#define DISK_INODES 256

static struct {
    struct crash_fs *fs;
    uint8_t *stable[DISK_INODES]; /* copies of each inode */
    uint64_t sizes[DISK_INODES];
    const char *failing_kind; /* of files whose syncs are counted; NULL: logs */
    uint64_t syncs;
    uint64_t failing_sync; /* of those; 0: none */
} disk;

static int disk_sync(void *context, void *handle)
{
    const uint32_t number = ((const struct crash_handle *)handle)->inode;
    const struct crash_inode *inode = &disk.fs->inodes[number];
    const uint64_t size = inode->size;
    uint8_t *copy = crash_memory(NULL, (size_t)size);
    memcpy(copy, inode->data, (size_t)size);
    schedule_point("a sync");
    const char *kind = disk.failing_kind == NULL ? "wal" : disk.failing_kind;
    const int fails = schedule.exploring && strcmp(disk.fs->inodes[number].kind, kind) == 0 &&
                      ++disk.syncs == disk.failing_sync;
    if (fails || number >= DISK_INODES) {
        free(copy);
        errno = EIO;
        return OMENDB_IOERR;
    }
    free(disk.stable[number]);
    disk.stable[number] = copy;
    disk.sizes[number] = size;
    return crash_sync(context, handle);
}

static int disk_sync_directory(void *context, void *directory)
{
    schedule_point("a sync of the directory");
    return crash_sync_directory(context, directory);
}

static int disk_rename(void *context, void *directory, const char *from, const char *to)
{
    schedule_point("a rename");
    return crash_rename(context, directory, from, to);
}

static int disk_lock(void *context, void *handle, int lock)
{
    schedule_point("a lock of a file");
    return crash_lock(context, handle, lock);
}

static uint64_t disk_now_us(void *context)
{
    (void)context;
    return ++schedule.clock_us;
}

/* Of a reader beside the writer, which meets it at files alone. */
static int disk_open(void *context, void *directory, const char *name, int flags, void **file)
{
    schedule_point("an opening of a file");
    return crash_open(context, directory, name, flags, file);
}

static int disk_list(void *context, void *directory, int (*each)(void *, const char *),
                     void *each_context)
{
    schedule_point("a list of the directory");
    return crash_list(context, directory, each, each_context);
}

static void disk_free(void)
{
    for (size_t i = 0; i < DISK_INODES; i++)
        free(disk.stable[i]);
    crash_fs_destroy(disk.fs);
    memset(&disk, 0, sizeof disk);
}

static void disk_make(void)
{
    disk_free();
    disk.fs = crash_fs_create(0);
    disk.fs->vfs.sync = disk_sync;
    disk.fs->vfs.sync_directory = disk_sync_directory;
    disk.fs->vfs.rename = disk_rename;
    disk.fs->vfs.lock = disk_lock;
    disk.fs->vfs.now_us = disk_now_us;
}

/* Whether these bytes are where a sync has covered them, in a file that has a name. */
static int disk_has(const void *bytes, size_t size)
{
    for (size_t i = 0; i < disk.fs->inode_count && i < DISK_INODES; i++) {
        if (disk.fs->inodes[i].references != 0 && disk.stable[i] != NULL &&
            memmem(disk.stable[i], (size_t)disk.sizes[i], bytes, size) != NULL)
            return 1;
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * the database of a schedule */

static struct {
    omendb *db;
    omendb_collection *docs;
    int32_t threads;
    uint64_t wal_limit, tail_limit;
    int64_t results[8]; /* what threads leave for the check */
} world;

static void world_open_at(const char *path)
{
    static const omendb_allocator allocator = {sizeof(omendb_allocator), NULL, arena_alloc,
                                               arena_resize, arena_release};
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = world.threads;
    options.wal_limit = world.wal_limit == 0 ? 8192 : world.wal_limit;
    options.tail_limit = world.tail_limit;
    options.vfs = &disk.fs->vfs;
    options.allocator = &allocator;
    SCHEDULE_EQUAL(omendb_open(path, &options, &world.db), OMENDB_OK);
    schedule_name(&world.db->maintenance_mutex.handle, "maintenance_mutex");
    schedule_name(&world.db->commit_mutex.handle, "commit_mutex");
    schedule_name(&world.db->sync_mutex.handle, "sync_mutex");
    schedule_name(&world.db->txn_mutex.handle, "txn_mutex");
}

static void world_open_handle(void)
{
    world_open_at("db");
}

/* Where threads work together. Elsewhere nobody else takes it. */
static void world_name_work(void)
{
    schedule_name(&world.db->work->mutex.handle, "work mutex");
}

static omendb_collection *world_docs(void)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *docs = NULL;
    schema.dim = DIM;
    schema.M = 2;
    schema.ef_construction = 8;
    SCHEDULE_EQUAL(omendb_collection_open_or_create(world.db, "docs", &schema, &docs), OMENDB_OK);
    return docs;
}

/* A handle and its collection, on empty files. */
static void world_begin(int32_t threads)
{
    database_list = NULL; /* a schedule that failed left one */
    schedule_mutex_init(&database_list_mutex, NULL);
    arena_reset();
    disk_make();
    memset(&world, 0, sizeof world);
    world.threads = threads;
    world_open_handle();
    world.docs = world_docs();
}

static void world_vector(uint64_t id, int64_t value, float vector[DIM])
{
    vector[0] = (float)id;
    vector[1] = (float)value;
    vector[2] = (float)(id * 1000) + (float)value;
    vector[3] = 0.5f;
}

static int world_try_put(uint64_t id, int64_t value)
{
    omendb_record record = OMENDB_RECORD_INIT;
    float vector[DIM];
    world_vector(id, value, vector);
    record.id = id;
    record.vector = vector;
    return omendb_put(world.docs, NULL, &record, NULL);
}

/* What is acknowledged is on the disk. */
static int world_put(uint64_t id, int64_t value)
{
    float vector[DIM];
    const int code = world_try_put(id, value);
    world_vector(id, value, vector);
    SCHEDULE_CHECK(code != OMENDB_OK || disk_has(vector, VECTOR));
    return code;
}

/* The value of a record, or MISSING. */
static int64_t world_get(omendb_txn *txn, uint64_t id)
{
    float vector[DIM];
    const int code = omendb_get(world.docs, txn, id, OMENDB_F32, vector);
    if (code == OMENDB_NOTFOUND)
        return MISSING;
    SCHEDULE_EQUAL(code, OMENDB_OK);
    SCHEDULE_EQUAL(vector[0], id);
    return (int64_t)vector[1];
}

static uint64_t world_count(omendb_txn *txn)
{
    uint64_t count = 0;
    SCHEDULE_EQUAL(omendb_count(world.docs, txn, &count), OMENDB_OK);
    return count;
}

/* Searches for a record by its vector: its id, or UINT64_MAX where another one is the nearest. */
static uint64_t world_search(omendb_txn *txn, uint64_t id, int64_t value)
{
    omendb_query query = OMENDB_QUERY_INIT;
    float vector[DIM];
    uint64_t found = UINT64_MAX;
    float distance = 0.0f;
    size_t count = 0;
    world_vector(id, value, vector);
    query.vector = vector;
    query.k = 1;
    SCHEDULE_EQUAL(omendb_search(world.docs, txn, &query, &found, &distance, &count), OMENDB_OK);
    return count == 1 && distance == 0.0f ? found : UINT64_MAX;
}

static void world_checkpoint(void)
{
    SCHEDULE_EQUAL(omendb_checkpoint(world.db), OMENDB_OK);
}

static void world_optimize(void)
{
    SCHEDULE_EQUAL(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
}

/* Records [first, last], of value 0. */
static void world_fill(uint64_t first, uint64_t last)
{
    for (uint64_t id = first; id <= last; id++)
        SCHEDULE_EQUAL(world_put(id, 0), OMENDB_OK);
}

/* Two segments of two records each. */
static void world_fill_segments(void)
{
    world_fill(1, 2);
    world_checkpoint();
    world_fill(3, 4);
    world_checkpoint();
}

static void world_check_problem(void *context, const char *line)
{
    (void)context;
    schedule_fail("omendb_check: %s", line);
}

/* Every so many schedules, as it takes longer than a schedule. */
static int world_is_sampled(void)
{
    return schedule.schedules % 16 == 0;
}

static void world_check_files(void)
{
    if (world_is_sampled())
        SCHEDULE_EQUAL(omendb_check(world.db, world_check_problem, NULL, NULL), OMENDB_OK);
}

static void world_close(void)
{
    omendb_collection_close(world.docs);
    SCHEDULE_EQUAL(omendb_close(world.db), OMENDB_OK);
    arena_check();
}

/* Sound, closed without a leak, and, in a sample, with the same number of records when opened
 * again. */
static void world_end(void)
{
    const uint64_t count = world_count(NULL);
    world_check_files();
    world_close();
    if (world_is_sampled()) {
        world_open_handle();
        world.docs = world_docs();
        SCHEDULE_EQUAL(world_count(NULL), count);
        world_close();
    }
}

#define RUN(...)                                                                                   \
    do {                                                                                           \
        static void (*const bodies[])(void) = {__VA_ARGS__};                                       \
        schedule_threads(bodies, (int)(sizeof bodies / sizeof bodies[0]));                         \
    } while (0)

/* ------------------------------------------------------------------------------------------------
 * what threads do */

/* Two records, the second after the first is acknowledged and seen. */
static void put_11_then_12(void)
{
    SCHEDULE_EQUAL(world_put(11, 1), OMENDB_OK);
    SCHEDULE_EQUAL(world_get(NULL, 11), 1);
    SCHEDULE_EQUAL(world_put(12, 1), OMENDB_OK);
}

static void put_21(void)
{
    SCHEDULE_EQUAL(world_put(21, 1), OMENDB_OK);
    SCHEDULE_EQUAL(world_get(NULL, 21), 1);
}

/* In a snapshot, whatever the others do: all that is asked agrees, and goes on agreeing. */
static int64_t read_snapshot(void)
{
    omendb_txn *txn;
    SCHEDULE_EQUAL(omendb_txn_begin(world.db, OMENDB_READ_ONLY, &txn), OMENDB_OK);
    const uint64_t count = world_count(txn);
    const int64_t second = world_get(txn, 12), first = world_get(txn, 11);
    const int64_t other = world_get(txn, 21);
    SCHEDULE_CHECK(second == MISSING || first != MISSING);
    SCHEDULE_EQUAL(count, 2 + (first != MISSING) + (second != MISSING) + (other != MISSING));
    SCHEDULE_EQUAL(world_count(txn), count);
    omendb_txn_rollback(txn);
    return (int64_t)count;
}

static void read_two_snapshots(void)
{
    const int64_t before = read_snapshot(), after = read_snapshot();
    SCHEDULE_CHECK(before <= after);
}

/* Without a transaction, what was seen stays seen. */
static void read_newest(void)
{
    const int64_t second = world_get(NULL, 12), first = world_get(NULL, 11);
    SCHEDULE_CHECK(second == MISSING || first != MISSING);
    const uint64_t before = world_count(NULL);
    SCHEDULE_CHECK(before >= 2 + (uint64_t)(first != MISSING) + (second != MISSING));
    SCHEDULE_CHECK(world_count(NULL) >= before);
}

/* ------------------------------------------------------------------------------------------------
 * scenarios */

static void check_puts(void)
{
    SCHEDULE_EQUAL(world_get(NULL, 11), 1);
    SCHEDULE_EQUAL(world_get(NULL, 12), 1);
    SCHEDULE_EQUAL(world_get(NULL, 21), 1);
    SCHEDULE_EQUAL(world_count(NULL), 5);
    world_end();
}

static void two_committers(void)
{
    world_begin(0);
    world_fill(1, 2);
    RUN(put_11_then_12, put_21);
    check_puts();
}

static void two_committers_and_a_reader(void)
{
    world_begin(0);
    world_fill(1, 2);
    RUN(put_11_then_12, put_21, read_two_snapshots);
    check_puts();
}

static void committer_and_newest_reader(void)
{
    world_begin(0);
    world_fill(1, 2);
    RUN(put_11_then_12, read_newest);
    SCHEDULE_EQUAL(world_count(NULL), 4);
    world_end();
}

static void committer_and_checkpoint(void)
{
    world_begin(0);
    world_fill(1, 2);
    RUN(put_11_then_12, world_checkpoint);
    SCHEDULE_EQUAL(world_get(NULL, 11), 1);
    SCHEDULE_EQUAL(world_count(NULL), 4);
    world_end();
}

static void committer_checkpoint_and_reader(void)
{
    world_begin(0);
    world_fill(1, 2);
    RUN(put_11_then_12, world_checkpoint, read_two_snapshots);
    SCHEDULE_EQUAL(world_count(NULL), 4);
    world_end();
}

/* The handle of a collection is closed by one thread, the database let go by the other: whoever is
 * the last closes it. */
/* After it was let go the handle serves nobody, but what was begun ends well. */
static void put_if_open_and_close(void)
{
    const int code = world_put(11, 1);
    SCHEDULE_CHECK(code == OMENDB_OK || code == OMENDB_MISUSE);
    world.results[0] = code;
    omendb_collection_close(world.docs);
}

static void release(void)
{
    omendb_release(world.db);
}

static void committer_and_release(void)
{
    world_begin(0);
    world_fill(1, 2);
    RUN(put_if_open_and_close, release);
    arena_check();
    world_open_handle();
    world.docs = world_docs();
    SCHEDULE_EQUAL(world_count(NULL), world.results[0] == OMENDB_OK ? 3 : 2);
    world_close();
}

/* ---- merges */

/* What a snapshot said of record 1, it says until it ends. */
static void read_across(void)
{
    omendb_txn *txn;
    SCHEDULE_EQUAL(omendb_txn_begin(world.db, OMENDB_READ_ONLY, &txn), OMENDB_OK);
    const int64_t first = world_get(txn, 1);
    SCHEDULE_EQUAL(world_count(txn), 3 + (first != MISSING));
    SCHEDULE_EQUAL(world_search(txn, 1, 0), first != MISSING ? 1 : UINT64_MAX);
    SCHEDULE_EQUAL(world_get(txn, 1), first);
    SCHEDULE_EQUAL(world_get(txn, 3), 0);
    omendb_txn_rollback(txn);
}

static void delete_1_and_merge(void)
{
    SCHEDULE_EQUAL(omendb_delete(world.docs, NULL, 1), OMENDB_OK);
    world_optimize();
}

static void delete_1(void)
{
    SCHEDULE_EQUAL(omendb_delete(world.docs, NULL, 1), OMENDB_OK);
    SCHEDULE_EQUAL(world_get(NULL, 1), MISSING);
}

static void check_1_is_deleted(void)
{
    SCHEDULE_EQUAL(world_get(NULL, 1), MISSING);
    SCHEDULE_EQUAL(world_search(NULL, 1, 0), UINT64_MAX);
    SCHEDULE_EQUAL(world_get(NULL, 2), 0);
    SCHEDULE_EQUAL(world_count(NULL), 3);
    world_end();
}

static void reader_and_deleting_merge(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(read_across, delete_1_and_merge);
    check_1_is_deleted();
}

/* What the merge may drop hangs on whether the snapshot is there already, or still. */
static void snapshot_and_dropping_merge(void)
{
    world_begin(0);
    world_fill_segments();
    SCHEDULE_EQUAL(omendb_delete(world.docs, NULL, 1), OMENDB_OK);
    world_checkpoint();
    SCHEDULE_EQUAL(world_put(1, 0), OMENDB_OK);
    RUN(read_across, delete_1_and_merge);
    check_1_is_deleted();
}

/* Record 1 goes before record 9 comes, and both changes are sealed: a snapshot that has record 9
 * has record 1 no more. */
static void delete_1_put_9_and_seal(void)
{
    SCHEDULE_EQUAL(omendb_delete(world.docs, NULL, 1), OMENDB_OK);
    SCHEDULE_EQUAL(world_put(9, 0), OMENDB_OK);
    world_checkpoint();
}

static void read_1_and_9(void)
{
    omendb_txn *txn;
    SCHEDULE_EQUAL(omendb_txn_begin(world.db, OMENDB_READ_ONLY, &txn), OMENDB_OK);
    const int64_t ninth = world_get(txn, 9), first = world_get(txn, 1);
    SCHEDULE_CHECK(ninth == MISSING || first == MISSING);
    SCHEDULE_EQUAL(world_count(txn), 3 + (first != MISSING) + (ninth != MISSING));
    SCHEDULE_EQUAL(world_search(txn, 9, 0), ninth == MISSING ? UINT64_MAX : 9);
    SCHEDULE_EQUAL(world_get(txn, 9), ninth);
    omendb_txn_rollback(txn);
}

static void snapshot_and_sealing(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(read_1_and_9, delete_1_put_9_and_seal);
    SCHEDULE_EQUAL(world_count(NULL), 4);
    world_end();
}

#define SNAPSHOTS 50

/* Many snapshots, that end in another order than they began: each says to the end what it said. */
static void hold_snapshots(void)
{
    omendb_txn *txns[SNAPSHOTS];
    int64_t first[SNAPSHOTS];
    for (int i = 0; i < SNAPSHOTS; i++) {
        SCHEDULE_EQUAL(omendb_txn_begin(world.db, OMENDB_READ_ONLY, &txns[i]), OMENDB_OK);
        first[i] = world_get(txns[i], 1);
        SCHEDULE_CHECK(i == 0 || first[i] == first[i - 1] || first[i] == MISSING);
    }
    for (int i = 0; i < SNAPSHOTS; i++) {
        const int at = i * 7 % SNAPSHOTS;
        SCHEDULE_EQUAL(world_get(txns[at], 1), first[at]);
        SCHEDULE_EQUAL(world_count(txns[at]), 3 + (first[at] != MISSING));
        omendb_txn_rollback(txns[at]);
    }
}

static void many_snapshots_and_merge(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(hold_snapshots, delete_1_and_merge);
    check_1_is_deleted();
}

static void deleter_and_merge(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(delete_1, world_optimize);
    check_1_is_deleted();
}

static void deleter_merge_and_reader(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(delete_1, world_optimize, read_across);
    check_1_is_deleted();
}

static void replace_2(void)
{
    SCHEDULE_EQUAL(world_put(2, 7), OMENDB_OK);
    SCHEDULE_EQUAL(world_get(NULL, 2), 7);
}

static void replacer_and_merge(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(replace_2, world_optimize);
    SCHEDULE_EQUAL(world_get(NULL, 2), 7);
    SCHEDULE_EQUAL(world_count(NULL), 4);
    world_end();
}

static void read_2(void)
{
    for (int i = 0; i < 2; i++) {
        const int64_t value = world_get(NULL, 2);
        SCHEDULE_CHECK(value == 0 || value == 7);
    }
}

/* A record that is replaced is there at any time. */
static void replacer_checkpoint_and_reader(void)
{
    world_begin(0);
    world_fill(1, 2);
    RUN(replace_2, world_checkpoint, read_2);
    SCHEDULE_EQUAL(world_get(NULL, 2), 7);
    SCHEDULE_EQUAL(world_count(NULL), 2);
    world_end();
}

/* ------------------------------------------------------------------------------------------------
 * keys and metadata: record n has the key "n" and a field v */

static void world_fill_documents(uint64_t first, uint64_t last)
{
    for (uint64_t id = first; id <= last; id++) {
        omendb_record record = OMENDB_RECORD_INIT;
        char key[2] = {(char)('0' + id), 0};
        float vector[DIM];
        world_vector(id, 0, vector);
        record.id = id;
        record.vector = vector;
        record.key = key;
        record.metadata = "{\"v\":0}";
        SCHEDULE_EQUAL(omendb_put(world.docs, NULL, &record, NULL), OMENDB_OK);
    }
    world_checkpoint();
}

/* Field v of the record that has the key "2". */
static int world_field(omendb_txn *txn)
{
    char metadata[32] = "";
    uint64_t id = 0;
    int value = -1;
    SCHEDULE_EQUAL(omendb_find(world.docs, txn, "2", &id), OMENDB_OK);
    SCHEDULE_EQUAL(id, 2);
    SCHEDULE_EQUAL(
        omendb_get_metadata(world.docs, txn, id, NULL, 0, metadata, sizeof metadata, NULL),
        OMENDB_OK);
    SCHEDULE_EQUAL(sscanf(metadata, "{\"v\":%d}", &value), 1);
    return value;
}

static void update_2(void)
{
    SCHEDULE_EQUAL(omendb_update(world.docs, NULL, 2, "{\"v\":7}"), OMENDB_OK);
    SCHEDULE_EQUAL(world_field(NULL), 7);
}

/* A snapshot sees one document of a record, whatever is written down meanwhile. */
static void read_field_twice(void)
{
    omendb_txn *txn = NULL;
    SCHEDULE_EQUAL(omendb_txn_begin(world.db, OMENDB_READ_ONLY, &txn), OMENDB_OK);
    const int value = world_field(txn);
    SCHEDULE_CHECK(value == 0 || value == 7);
    SCHEDULE_EQUAL(world_field(txn), value);
    omendb_txn_rollback(txn);
}

static void updater_and_merge(void)
{
    world_begin(0);
    world_fill_documents(1, 2);
    world_fill_documents(3, 4);
    RUN(update_2, world_optimize);
    SCHEDULE_EQUAL(world_field(NULL), 7);
    world_end();
}

static void updater_checkpoint_and_reader(void)
{
    world_begin(0);
    world_fill_documents(1, 3);
    RUN(update_2, world_checkpoint, read_field_twice);
    SCHEDULE_EQUAL(world_field(NULL), 7);
    world_end();
}

static omendb_txn *held_snapshot;

static void read_field_and_release(void)
{
    SCHEDULE_EQUAL(world_field(held_snapshot), 0);
    omendb_txn_rollback(held_snapshot);
}

/* A checkpoint, and the look for dead bytes that follows. */
static void checkpoint_and_look(void)
{
    world_checkpoint();
    SCHEDULE_EQUAL(omendb_work(world.db, UINT64_MAX, NULL), OMENDB_OK);
}

/* What only the snapshot sees goes when it has ended, be that before the look or after it. */
static void held_documents_and_look(void)
{
    world_begin(0);
    world_fill_documents(1, 9);
    SCHEDULE_EQUAL(omendb_txn_begin(world.db, OMENDB_READ_ONLY, &held_snapshot), OMENDB_OK);
    update_2();
    RUN(read_field_and_release, checkpoint_and_look, read_field_twice);
    SCHEDULE_EQUAL(world_field(NULL), 7);
    SCHEDULE_EQUAL(omendb_work(world.db, UINT64_MAX, NULL), OMENDB_OK);
    const struct version *version = atomic_load(&world.docs->collection->version);
    for (uint32_t i = 0; i < version->segment_count; i++)
        SCHEDULE_CHECK(version->segment_overlays[i] == NULL ||
                       version->segment_overlays[i]->older == NULL);
    world_end();
}

static void merge_and_checkpoint(void)
{
    world_begin(0);
    world_fill_segments();
    world_fill(5, 5);
    RUN(world_optimize, world_checkpoint);
    SCHEDULE_EQUAL(world_count(NULL), 5);
    world_end();
}

static void two_merges(void)
{
    world_begin(0);
    world_fill_segments();
    world_name_work();
    RUN(world_optimize, world_optimize);
    SCHEDULE_EQUAL(world_count(NULL), 4);
    world_end();
}

/* ---- a reader beside */

static struct {
    omendb_vfs vfs;
    omendb *db;
    omendb_collection *docs;
} beside;

static void beside_open(void)
{
    static const omendb_allocator allocator = {sizeof(omendb_allocator), NULL, arena_alloc,
                                               arena_resize, arena_release};
    omendb_options options = OMENDB_OPTIONS_INIT;
    beside.vfs = disk.fs->vfs;
    beside.vfs.open = disk_open;
    beside.vfs.list = disk_list;
    options.read_only = 1;
    options.vfs = &beside.vfs;
    options.allocator = &allocator;
    SCHEDULE_EQUAL(omendb_open("db", &options, &beside.db), OMENDB_OK);
    SCHEDULE_EQUAL(omendb_collection_open(beside.db, "docs", NULL, &beside.docs), OMENDB_OK);
}

static int64_t beside_get(uint64_t id)
{
    float vector[DIM];
    SCHEDULE_EQUAL(omendb_get(beside.docs, NULL, id, OMENDB_F32, vector), OMENDB_OK);
    return (int64_t)vector[1];
}

static void beside_close(void)
{
    omendb_collection_close(beside.docs);
    SCHEDULE_EQUAL(omendb_close(beside.db), OMENDB_OK);
}

/* What was acknowledged before a refresh is seen after it. */
static void beside_refresh(void)
{
    for (int i = 0; i < 2; i++) {
        const int64_t acknowledged = world.results[0], before = beside_get(1);
        SCHEDULE_EQUAL(omendb_refresh(beside.db), OMENDB_OK);
        const int64_t after = beside_get(1);
        SCHEDULE_CHECK(after >= acknowledged && after >= before);
    }
}

static void put_1_twice(void)
{
    for (int64_t value = 1; value <= 2; value++) {
        SCHEDULE_EQUAL(world_put(1, value), OMENDB_OK);
        world.results[0] = value;
    }
}

static void checkpoint_twice(void)
{
    world_checkpoint();
    world_checkpoint();
}

static void put_1_and_checkpoint(void)
{
    for (int64_t value = 1; value <= 2; value++) {
        SCHEDULE_EQUAL(world_put(1, value), OMENDB_OK);
        world.results[0] = value;
        world_checkpoint();
    }
}

static void beside_begin(void)
{
    world_begin(0);
    world_fill_segments();
    beside_open();
    world_fill(5, 5);
}

static void beside_end(void)
{
    SCHEDULE_EQUAL(omendb_refresh(beside.db), OMENDB_OK);
    SCHEDULE_EQUAL(beside_get(1), world_get(NULL, 1));
    beside_close();
    world_end();
}

static void refresher_and_checkpointing_writer(void)
{
    beside_begin();
    RUN(beside_refresh, put_1_and_checkpoint);
    beside_end();
}

static void refresher_writer_and_checkpoints(void)
{
    beside_begin();
    RUN(checkpoint_twice, put_1_twice, beside_refresh);
    beside_end();
}

static void refresher_and_merge(void)
{
    beside_begin();
    RUN(beside_refresh, world_optimize);
    beside_end();
}

/* ---- transactions */

/* Reads and replaces record 1. Each that commits counts; who is told of a conflict can see it. */
static void increment(void)
{
    omendb_record record = OMENDB_RECORD_INIT;
    float vector[DIM];
    omendb_txn *txn;
    SCHEDULE_EQUAL(omendb_txn_begin(world.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    const int64_t read = world_get(txn, 1);
    world_vector(1, read + 1, vector);
    record.id = 1;
    record.vector = vector;
    SCHEDULE_EQUAL(omendb_put(world.docs, txn, &record, NULL), OMENDB_OK);
    const int code = omendb_txn_commit(txn);
    SCHEDULE_CHECK(code == OMENDB_OK || code == OMENDB_CONFLICT);
    world.results[0] += code == OMENDB_OK;
    SCHEDULE_CHECK(world_get(NULL, 1) > read);
}

/* No increment is lost, and one at least came through. */
static void check_increments(void)
{
    SCHEDULE_CHECK(world.results[0] >= 1);
    SCHEDULE_EQUAL(world_get(NULL, 1), world.results[0]);
    world_end();
}

static void two_transactions(void)
{
    world_begin(0);
    world_fill(1, 2);
    RUN(increment, increment);
    check_increments();
}

static void two_transactions_over_a_segment(void)
{
    world_begin(0);
    world_fill(1, 2);
    world_checkpoint();
    RUN(increment, increment);
    check_increments();
}

static void transactions_and_checkpoint(void)
{
    world_begin(0);
    world_fill(1, 2);
    RUN(increment, increment, world_checkpoint);
    check_increments();
}

static void transactions_and_merge(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(increment, increment, world_optimize);
    check_increments();
}

/* Adds record 9, which is not there. Who is told that it is can see it. */
static void add_9(void)
{
    omendb_record record = OMENDB_RECORD_INIT;
    float vector[DIM];
    world_vector(9, 0, vector);
    record.id = 9;
    record.vector = vector;
    const int code = omendb_add(world.docs, NULL, &record, NULL);
    SCHEDULE_CHECK(code == OMENDB_OK || code == OMENDB_EXISTS);
    world.results[0] += code == OMENDB_OK;
    SCHEDULE_EQUAL(world_get(NULL, 9), 0);
}

static void two_adders_of_one_id(void)
{
    world_begin(0);
    world_fill(1, 2);
    RUN(add_9, add_9);
    SCHEDULE_EQUAL(world.results[0], 1);
    SCHEDULE_EQUAL(world_count(NULL), 3);
    world_end();
}

/* Of the two one deletes it, and neither finds it afterwards. */
static void delete_1_or_miss(void)
{
    const int code = omendb_delete(world.docs, NULL, 1);
    SCHEDULE_CHECK(code == OMENDB_OK || code == OMENDB_NOTFOUND);
    world.results[0] += code == OMENDB_OK;
    SCHEDULE_EQUAL(world_get(NULL, 1), MISSING);
}

static void delete_batch_1(void)
{
    const uint64_t id = 1;
    size_t deleted = 0;
    SCHEDULE_EQUAL(omendb_delete_batch(world.docs, NULL, 1, &id, &deleted), OMENDB_OK);
    world.results[0] += (int64_t)deleted;
    SCHEDULE_EQUAL(world_get(NULL, 1), MISSING);
}

static void two_deleters_of_one_id(void)
{
    world_begin(0);
    world_fill(1, 2);
    RUN(delete_1_or_miss, delete_batch_1);
    SCHEDULE_EQUAL(world.results[0], 1);
    SCHEDULE_EQUAL(world_count(NULL), 1);
    world_end();
}

/* ---- failing syncs */

static void put_or_fail(uint64_t id)
{
    const int code = world_put(id, 1);
    SCHEDULE_CHECK(code == OMENDB_OK || code == OMENDB_IOERR || code == OMENDB_POISONED);
    world.results[id] = code;
}

static void put_1_then_2_or_fail(void)
{
    put_or_fail(1);
    put_or_fail(2);
    SCHEDULE_CHECK(world.results[1] == OMENDB_OK || world.results[2] == OMENDB_POISONED);
}

static void put_3_or_fail(void)
{
    put_or_fail(3);
}

static void checkpoint_or_fail(void)
{
    const int code = omendb_checkpoint(world.db);
    SCHEDULE_CHECK(code == OMENDB_OK || code == OMENDB_IOERR || code == OMENDB_POISONED);
}

/* Once a sync has failed all that wait for it are told, nobody writes any more, and what was
 * acknowledged is there. */
static void check_acknowledged(void)
{
    SCHEDULE_CHECK(disk.syncs < disk.failing_sync || world_put(4, 1) == OMENDB_POISONED);
    world_close();
    world_open_handle();
    world.docs = world_docs();
    for (uint64_t id = 1; id <= 3; id++)
        SCHEDULE_CHECK(world.results[id] != OMENDB_OK || world_get(NULL, id) == 1);
    world_close();
}

static void first_sync_fails(void)
{
    world_begin(0);
    disk.failing_sync = 1;
    RUN(put_1_then_2_or_fail, put_3_or_fail);
    check_acknowledged();
}

static void second_sync_fails(void)
{
    world_begin(0);
    disk.failing_sync = 2;
    RUN(put_1_then_2_or_fail, put_3_or_fail);
    check_acknowledged();
}

static void sync_of_a_checkpoint_fails(void)
{
    world_begin(0);
    disk.failing_sync = 2;
    RUN(put_1_then_2_or_fail, checkpoint_or_fail);
    world.results[3] = OMENDB_POISONED;
    check_acknowledged();
}

static void optimize_or_fail(void)
{
    const int code = omendb_optimize(world.db, NULL, NULL);
    SCHEDULE_CHECK(code == OMENDB_OK || code == OMENDB_IOERR || code == OMENDB_POISONED);
}

static void sync_of_a_merge_fails(void)
{
    world_begin(0);
    for (uint64_t id = 5; id <= 8; id += 2) {
        world_fill(id, id + 1);
        world_checkpoint();
    }
    disk.failing_kind = "seg";
    disk.failing_sync = 1;
    RUN(put_1_then_2_or_fail, optimize_or_fail);
    world.results[3] = OMENDB_POISONED;
    check_acknowledged();
}

/* ---- what looks at everything */

static void check_all(void)
{
    SCHEDULE_EQUAL(omendb_check(world.db, world_check_problem, NULL, NULL), OMENDB_OK);
}

static void check_and_merge(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(check_all, delete_1_and_merge);
    check_1_is_deleted();
}

static void back_up(void)
{
    SCHEDULE_EQUAL(omendb_backup(world.db, "copy"), OMENDB_OK);
}

/* The copy opens, is sound, and holds what was there at some moment of it. */
static void check_copy(void)
{
    omendb_collection_close(world.docs);
    SCHEDULE_EQUAL(omendb_close(world.db), OMENDB_OK);
    world_open_at("copy");
    world.docs = world_docs();
    const int64_t second = world_get(NULL, 12), first = world_get(NULL, 11);
    SCHEDULE_CHECK(second == MISSING || first != MISSING);
    SCHEDULE_EQUAL(world_count(NULL), 4 + (first != MISSING) + (second != MISSING));
    check_all();
    world_close();
}

static void backup_and_committer(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(back_up, put_11_then_12);
    check_copy();
}

static void backup_and_merge(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(back_up, world_optimize);
    check_copy();
}

/* ---- background work, and what may go meanwhile */

static void work(void)
{
    SCHEDULE_EQUAL(omendb_work(world.db, UINT64_MAX, NULL), OMENDB_OK);
}

/* The log is over its limit at once, so both make checkpoints. */
static void writer_and_work(void)
{
    world_begin(0);
    world_fill(1, 2);
    world.db->wal_limit = 64;
    world_name_work();
    RUN(put_11_then_12, work);
    SCHEDULE_EQUAL(world_count(NULL), 4);
    world_end();
}

static void two_workers(void)
{
    world_begin(0);
    world_fill(1, 6);
    world_name_work();
    RUN(work, work, put_21);
    SCHEDULE_EQUAL(world_count(NULL), 7);
    world_end();
}

static void drop(void)
{
    SCHEDULE_EQUAL(omendb_collection_drop(world.db, "docs"), OMENDB_OK);
}

static void merge_and_drop(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(world_optimize, drop);
    world_check_files();
    world_close();
}

static void read_while_there(void)
{
    uint64_t count = 0;
    const int code = omendb_count(world.docs, NULL, &count);
    SCHEDULE_CHECK(code == OMENDB_DROPPED || (code == OMENDB_OK && count == 4));
    omendb_rows *rows = NULL;
    if (omendb_scan(world.docs, NULL, 0, UINT64_MAX - 1, &rows) == OMENDB_OK) {
        for (uint64_t id = 1, next = 0; id <= 4; id++) {
            SCHEDULE_EQUAL(omendb_rows_next(rows, &next, OMENDB_F32, NULL), OMENDB_OK);
            SCHEDULE_EQUAL(next, id);
        }
        omendb_rows_close(rows);
    }
    omendb_collection_close(world.docs);
}

static void reader_drop_and_merge(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(read_while_there, drop, world_optimize);
    SCHEDULE_EQUAL(omendb_close(world.db), OMENDB_OK);
    arena_check();
}

static void put_while_there(void)
{
    const int code = world_try_put(11, 1);
    SCHEDULE_CHECK(code == OMENDB_DROPPED || code == OMENDB_OK);
}

static void writer_drop_and_checkpoint(void)
{
    world_begin(0);
    world_fill_segments();
    RUN(put_while_there, drop, world_checkpoint);
    world_check_files();
    world_close();
}

/* A copy of a segment is made and given back while others search it. */
static void copy_and_give_back(void)
{
    struct version *version = version_acquire(world.docs->collection);
    for (uint32_t i = 0; i < version->segment_count; i++)
        SCHEDULE_EQUAL(hot_make(world.db, version->segments[i]), OMENDB_OK);
    version_release(version);
    SCHEDULE_CHECK(hot_give_back(world.db));
}

static void search_twice(void)
{
    SCHEDULE_EQUAL(world_search(NULL, 1, 0), 1);
    SCHEDULE_EQUAL(world_search(NULL, 4, 0), 4);
}

static void search_and_copies(void)
{
    world_begin(0);
    world_fill_segments();
    world_optimize();
    RUN(search_twice, copy_and_give_back);
    world_end();
}

static void search_copies_and_deleter(void)
{
    world_begin(0);
    world_fill_segments();
    world_optimize();
    RUN(read_across, copy_and_give_back, delete_1);
    check_1_is_deleted();
}

/* A thread of the library's own, which links the rows. */
static void writer_and_background(void)
{
    world_begin(1);
    world_name_work();
    RUN(put_11_then_12);
    SCHEDULE_EQUAL(world_count(NULL), 2);
    world_end();
}

static void put_and_close_all(void)
{
    SCHEDULE_EQUAL(world_put(11, 1), OMENDB_OK);
    omendb_collection_close(world.docs);
    SCHEDULE_EQUAL(omendb_close(world.db), OMENDB_OK);
}

static void close_and_background(void)
{
    world_begin(1);
    world_name_work();
    RUN(put_and_close_all);
    arena_check();
    world_open_handle();
    world.docs = world_docs();
    SCHEDULE_EQUAL(world_get(NULL, 11), 1);
    world_close();
}

static void open_again(void)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db = NULL;
    options.threads = 0;
    options.vfs = &disk.fs->vfs;
    const int code = omendb_open("other", &options, &db);
    SCHEDULE_CHECK(code == OMENDB_BUSY || code == OMENDB_OK);
    world.results[0] += code == OMENDB_OK;
    if (code == OMENDB_OK) {
        SCHEDULE_EQUAL(omendb_checkpoint(db), OMENDB_OK);
        SCHEDULE_EQUAL(omendb_close(db), OMENDB_OK);
    }
}

static void two_openers(void)
{
    world_begin(0);
    schedule_name(&database_list_mutex, "list mutex");
    RUN(open_again, open_again);
    schedule_name(&database_list_mutex, NULL);
    SCHEDULE_CHECK(world.results[0] >= 1);
    world_end();
}

static void open_other_collection(void)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *other = NULL;
    schema.dim = DIM;
    SCHEDULE_EQUAL(omendb_collection_open_or_create(world.db, "other", &schema, &other), OMENDB_OK);
    omendb_collection_close(other);
}

static void two_creators(void)
{
    char name[16];
    world_begin(0);
    RUN(open_other_collection, open_other_collection);
    SCHEDULE_EQUAL(omendb_collection_name(world.db, 2, name, sizeof name), OMENDB_DONE);
    world_end();
}

/* ------------------------------------------------------------------------------------------------
 * the program */

#define SCENARIO(name)                                                                             \
    {                                                                                              \
#name, name                                                                                \
    }

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    SCENARIO(two_committers),
    SCENARIO(two_committers_and_a_reader),
    SCENARIO(committer_and_newest_reader),
    SCENARIO(committer_and_checkpoint),
    SCENARIO(committer_checkpoint_and_reader),
    SCENARIO(committer_and_release),
    SCENARIO(reader_and_deleting_merge),
    SCENARIO(snapshot_and_dropping_merge),
    SCENARIO(snapshot_and_sealing),
    SCENARIO(many_snapshots_and_merge),
    SCENARIO(deleter_and_merge),
    SCENARIO(deleter_merge_and_reader),
    SCENARIO(replacer_and_merge),
    SCENARIO(replacer_checkpoint_and_reader),
    SCENARIO(updater_and_merge),
    SCENARIO(updater_checkpoint_and_reader),
    SCENARIO(held_documents_and_look),
    SCENARIO(merge_and_checkpoint),
    SCENARIO(two_merges),
    SCENARIO(refresher_and_checkpointing_writer),
    SCENARIO(refresher_writer_and_checkpoints),
    SCENARIO(refresher_and_merge),
    SCENARIO(two_transactions),
    SCENARIO(two_transactions_over_a_segment),
    SCENARIO(transactions_and_checkpoint),
    SCENARIO(transactions_and_merge),
    SCENARIO(two_adders_of_one_id),
    SCENARIO(two_deleters_of_one_id),
    SCENARIO(first_sync_fails),
    SCENARIO(second_sync_fails),
    SCENARIO(sync_of_a_checkpoint_fails),
    SCENARIO(sync_of_a_merge_fails),
    SCENARIO(check_and_merge),
    SCENARIO(backup_and_committer),
    SCENARIO(backup_and_merge),
    SCENARIO(writer_and_work),
    SCENARIO(two_workers),
    SCENARIO(merge_and_drop),
    SCENARIO(reader_drop_and_merge),
    SCENARIO(writer_drop_and_checkpoint),
    SCENARIO(search_and_copies),
    SCENARIO(search_copies_and_deleter),
    SCENARIO(writer_and_background),
    SCENARIO(close_and_background),
    SCENARIO(two_openers),
    SCENARIO(two_creators),
};

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

struct effort {
    uint32_t bound;
    uint64_t most, samples;
};

/* 1: no schedule failed. */
static int explore(void (*run)(void), const struct effort *effort)
{
    const double began = seconds();
    int outcome = 1;
    schedule.schedules = 0;
    for (uint32_t bound = 0; bound <= effort->bound && outcome > 0; bound++) {
        const uint64_t before = schedule.schedules;
        outcome = schedule_explore_bound(run, bound, effort->most);
        printf("    bound %u: %s%llu schedules\n", bound, outcome == 0 ? "more than " : "",
               (unsigned long long)(schedule.schedules - before));
    }
    if (outcome == 0) {
        schedule_sample(run, effort->bound, effort->samples);
        printf("    bound %u: %llu by chance\n", effort->bound,
               (unsigned long long)effort->samples);
    }
    printf("    %llu schedules, %.1f s\n", (unsigned long long)schedule.schedules,
           seconds() - began);
    return !schedule.failed;
}

static const char *text_argument(int argc, char **argv, const char *name)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return NULL;
}

int main(int argc, char **argv)
{
    /* They are many: a tenth of the scale leaves a hundredth. */
    const double scale = support_scale() * support_scale();
    struct effort effort = {
        (uint32_t)support_argument(argc, argv, "--bound", 2),
        (uint64_t)((double)support_argument(argc, argv, "--most", 60000) * scale),
        (uint64_t)((double)support_argument(argc, argv, "--samples", 2000) * scale)};
    const char *filter = argc > 1 && argv[1][0] != '-' ? argv[1] : "";
    const char *replay = text_argument(argc, argv, "--replay");
    schedule_planted = (int)support_argument(argc, argv, "--planted", 0);
    int passed = 0, failed = 0;
#if defined(__SANITIZE_THREAD__)
    effort.bound = 0; /* one thread of the system, slow to switch: nothing to see here */
#endif
    schedule_catch_signals();
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++) {
        if (strstr(scenarios[i].name, filter) == NULL)
            continue;
        schedule.scenario = scenarios[i].name;
        if (replay != NULL)
            schedule_replay(scenarios[i].run, replay);
        const int good = replay != NULL ? !schedule.failed : explore(scenarios[i].run, &effort);
        if (replay != NULL && schedule.failed)
            fprintf(stderr, "%s\n", schedule.text);
        printf("%s %s\n", good ? "ok" : "FAILED", scenarios[i].name);
        fflush(stdout);
        passed += good;
        failed += !good;
    }
    disk_free();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
