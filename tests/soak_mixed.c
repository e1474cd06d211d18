/* soak_mixed.c: hours of everything at once, and nothing may grow.
 *
 * Threads put, delete, search, scan, hold snapshots over merges, read beside the writer in a second
 * handle, and make backups; now and then all of them stop while the database is closed, opened
 * again and compared with what the writers know. The ids are bounded, so that the database has a
 * steady size.
 *
 * What leaks is found exactly: whenever all is closed the library, whose allocations are counted,
 * must have given back every byte, and as many descriptors are open as in the beginning. And each
 * second the resident memory, the open descriptors and the bytes on disk are sampled. The first
 * third of the time is to warm up; the largest value of the last third must not be above that of
 * the middle third by more than a bound. It is a wide one for memory, whose largest value is a
 * matter of chance: between 20 and 50 MiB are resident from the first minute on, of which 3 to 12
 * are in use where files are mapped, 10 to 25 where they are read; the rest are pages of mapped
 * files, of the writer's, the reader's and those that a backup verifies, and what malloc keeps.
 *
 * Environment: OMENDB_SOAK_SECONDS (14400), OMENDB_TEST_SEED. Needs /proc for memory and
 * descriptors; elsewhere only the disk is watched. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "support.h"
#include "test.h"

#define SOAK_DIM       24
#define SOAK_WRITERS   2
#define SOAK_IDS       6000 /* of each writer */
#define SOAK_BATCH     40
#define SOAK_REOPEN_S  20
#define SOAK_THREADS   (SOAK_WRITERS + 4)
#define SOAK_SLACK     (24 << 20) /* bytes */
#define SOAK_SLACK_FDS 8

struct soak_worker;

struct soak {
    char path[4096], backup[4200];
    omendb *db;
    omendb_collection *docs;
    /* The gate: workers pass it before each step; it is closed while the database is. */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int closed, at_work;
    _Atomic int stop, bad;
    _Atomic uint64_t writes, searches, snapshots, backups, refreshes;
    _Atomic int64_t live; /* bytes that the library allocated and did not give back */
    omendb_allocator allocator;
    uint64_t reopenings, closed_descriptors;
    struct soak_worker *workers;
    uint64_t values[SOAK_WRITERS][SOAK_IDS]; /* of the writer itself; 0: absent */
};

struct soak_worker {
    struct soak *soak;
    uint64_t number;
    struct support_random random;
    int (*step)(struct soak_worker *worker);
    omendb *reader; /* of the one that reads beside */
};

static int soak_fail(struct soak *soak, const char *what, int status)
{
    if (!atomic_exchange(&soak->bad, 1))
        fprintf(stderr, "%s: %s (%s)\n", what, omendb_strerror(status), omendb_errmsg());
    atomic_store(&soak->stop, 1);
    return status;
}

static void soak_pause(long milliseconds)
{
    const struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

/* ------------------------------------------------------------------------------------------------
 * memory, counted */

static void *soak_alloc(void *context, size_t size)
{
    struct soak *soak = context;
    atomic_fetch_add(&soak->live, (int64_t)size);
    return malloc(size);
}

static void *soak_resize(void *context, void *block, size_t old_size, size_t new_size)
{
    struct soak *soak = context;
    atomic_fetch_add(&soak->live, (int64_t)new_size - (int64_t)old_size);
    return realloc(block, new_size);
}

static void soak_release(void *context, void *block, size_t size)
{
    struct soak *soak = context;
    atomic_fetch_sub(&soak->live, (int64_t)size);
    free(block);
}

/* ------------------------------------------------------------------------------------------------
 * what the threads do, a step at a time */

static int soak_write(struct soak_worker *worker)
{
    static _Thread_local float vectors[SOAK_BATCH * SOAK_DIM];
    struct soak *soak = worker->soak;
    uint64_t *values = soak->values[worker->number], ids[SOAK_BATCH], before[SOAK_BATCH];
    const uint64_t first = support_below(&worker->random, SOAK_IDS - SOAK_BATCH);
    const int deletes = support_below(&worker->random, 4) == 0;
    memcpy(before, values + first, sizeof before);
    for (uint64_t i = 0; i < SOAK_BATCH; i++) {
        ids[i] = worker->number * SOAK_IDS + first + i;
        values[first + i] = deletes ? 0 : support_next(&worker->random) | 1;
        support_vector(values[first + i], SOAK_DIM, vectors + i * SOAK_DIM);
    }
    atomic_fetch_add(&soak->writes, SOAK_BATCH);
    const int status =
        deletes ? omendb_delete_batch(soak->docs, NULL, SOAK_BATCH, ids, NULL)
                : omendb_put_batch(soak->docs, NULL, SOAK_BATCH, ids, vectors, OMENDB_F32, NULL);
    if (status != OMENDB_OK)
        memcpy(values + first, before, sizeof before);
    return status;
}

static int soak_search(struct soak_worker *worker)
{
    float vector[SOAK_DIM], distances[10];
    uint64_t ids[10];
    size_t count = 0;
    omendb_query query = OMENDB_QUERY_INIT;
    support_vector(support_next(&worker->random), SOAK_DIM, vector);
    query.vector = vector;
    query.exact = support_below(&worker->random, 20) == 0;
    const int status = omendb_search(worker->soak->docs, NULL, &query, ids, distances, &count);
    for (size_t i = 1; i < count && status == OMENDB_OK; i++)
        if (distances[i] < distances[i - 1])
            return OMENDB_CORRUPT;
    atomic_fetch_add(&worker->soak->searches, 1);
    return status;
}

/* A snapshot that is held while others write gives the same digest again. */
static int soak_snapshot(struct soak_worker *worker)
{
    struct soak *soak = worker->soak;
    omendb_txn *txn = NULL;
    uint64_t before = 0, after = 0;
    int status = omendb_txn_begin(soak->db, OMENDB_READ_ONLY, &txn);
    if (status == OMENDB_OK)
        status = support_digest(soak->db, txn, &before);
    soak_pause((long)support_below(&worker->random, 400));
    if (status == OMENDB_OK)
        status = support_digest(soak->db, txn, &after);
    omendb_txn_rollback(txn);
    atomic_fetch_add(&soak->snapshots, 1);
    return status == OMENDB_OK && before != after ? OMENDB_CORRUPT : status;
}

static int soak_backup(struct soak_worker *worker)
{
    struct soak *soak = worker->soak;
    soak_pause(500);
    support_remove(soak->backup);
    atomic_fetch_add(&soak->backups, 1);
    return omendb_backup(soak->db, soak->backup);
}

/* Opens, refreshes, closes a second handle. */
static int soak_read_beside(struct soak_worker *worker)
{
    uint64_t digest = 0;
    int status = OMENDB_OK;
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.read_only = 1;
    options.allocator = &worker->soak->allocator;
    options.io = support_below(&worker->random, 2) == 0 ? OMENDB_IO_PREAD : OMENDB_IO_MAP;
    soak_pause(100);
    if (worker->reader == NULL)
        status = omendb_open(worker->soak->path, &options, &worker->reader);
    else
        status = omendb_refresh(worker->reader);
    /* The writer may replace manifests faster than a reader gets hold of one. */
    if (status == OMENDB_BUSY)
        return OMENDB_OK;
    if (status == OMENDB_OK)
        status = support_digest(worker->reader, NULL, &digest);
    atomic_fetch_add(&worker->soak->refreshes, 1);
    if (status == OMENDB_OK && support_below(&worker->random, 10) == 0) {
        status = omendb_close(worker->reader);
        worker->reader = NULL;
    }
    return status;
}

/* ------------------------------------------------------------------------------------------------
 * the gate */

static int soak_enter(struct soak *soak)
{
    pthread_mutex_lock(&soak->mutex);
    while (soak->closed && !atomic_load(&soak->stop))
        pthread_cond_wait(&soak->changed, &soak->mutex);
    const int stop = atomic_load(&soak->stop);
    soak->at_work += !stop;
    pthread_mutex_unlock(&soak->mutex);
    return !stop;
}

static void soak_leave(struct soak *soak)
{
    pthread_mutex_lock(&soak->mutex);
    soak->at_work--;
    pthread_cond_broadcast(&soak->changed);
    pthread_mutex_unlock(&soak->mutex);
}

static void *soak_run(void *argument)
{
    struct soak_worker *worker = argument;
    while (soak_enter(worker->soak)) {
        const int status = worker->step(worker);
        if (status != OMENDB_OK && status != OMENDB_BUSY)
            soak_fail(worker->soak, "a step", status);
        soak_leave(worker->soak);
    }
    const int status = omendb_close(worker->reader);
    if (status != OMENDB_OK)
        soak_fail(worker->soak, "close of a reader", status);
    return NULL;
}

static int soak_open(struct soak *soak)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.allocator = &soak->allocator;
    options.wal_limit = 1 << 20;
    options.tail_limit = 128 << 10;
    options.sync = OMENDB_SYNC_NORMAL;
    options.threads = 2;
    options.io = soak->reopenings % 2 ? OMENDB_IO_PREAD : OMENDB_IO_MAP;
    schema.dim = SOAK_DIM;
    schema.M = 8;
    schema.ef_construction = 32;
    const int status = omendb_open(soak->path, &options, &soak->db);
    return status != OMENDB_OK
               ? status
               : omendb_collection_open_or_create(soak->db, "docs", &schema, &soak->docs);
}

static int soak_close(struct soak *soak)
{
    omendb_collection_close(soak->docs);
    soak->docs = NULL;
    const int status = omendb_close(soak->db);
    soak->db = NULL;
    return status;
}

/* All records are those that the writers know. */
static int soak_compare(struct soak *soak)
{
    float vector[SOAK_DIM], wanted[SOAK_DIM];
    for (uint64_t w = 0; w < SOAK_WRITERS; w++)
        for (uint64_t i = 0; i < SOAK_IDS; i++) {
            const uint64_t value = soak->values[w][i];
            const int status = omendb_get(soak->docs, NULL, w * SOAK_IDS + i, OMENDB_F32, vector);
            if (status != (value == 0 ? OMENDB_NOTFOUND : OMENDB_OK))
                return status == OMENDB_OK ? OMENDB_CORRUPT : status;
            support_vector(value, SOAK_DIM, wanted);
            if (value != 0 && memcmp(vector, wanted, sizeof vector) != 0)
                return OMENDB_CORRUPT;
        }
    return OMENDB_OK;
}

static uint64_t soak_entries(const char *path, int sum_sizes)
{
    uint64_t sum = 0;
    struct dirent *entry;
    struct stat facts;
    char child[8192];
    DIR *entries = opendir(path);
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        if (!sum_sizes)
            sum++;
        else if (lstat(child, &facts) == 0 && S_ISREG(facts.st_mode))
            sum += (uint64_t)facts.st_blocks * 512;
    }
    if (entries != NULL)
        closedir(entries);
    return sum;
}

/* Nothing is open: nothing may be left. */
static int soak_check_closed(struct soak *soak)
{
    const long long live = atomic_load(&soak->live);
    const uint64_t descriptors = soak_entries("/proc/self/fd", 0);
    if (live == 0 && descriptors == soak->closed_descriptors)
        return OMENDB_OK;
    fprintf(stderr, "closed: %lld bytes of memory, %llu descriptors, %llu in the beginning\n", live,
            (unsigned long long)descriptors, (unsigned long long)soak->closed_descriptors);
    return OMENDB_MISMATCH;
}

static int soak_close_all(struct soak *soak)
{
    int status = OMENDB_OK;
    for (size_t i = 0; i < SOAK_THREADS && status == OMENDB_OK; i++) {
        status = omendb_close(soak->workers[i].reader);
        soak->workers[i].reader = NULL;
    }
    return status == OMENDB_OK ? soak_close(soak) : status;
}

static void soak_reopen(struct soak *soak)
{
    pthread_mutex_lock(&soak->mutex);
    soak->closed = 1;
    while (soak->at_work > 0)
        pthread_cond_wait(&soak->changed, &soak->mutex);
    int status = soak_close_all(soak);
    if (status == OMENDB_OK)
        status = soak_check_closed(soak);
    soak->reopenings++;
    if (status == OMENDB_OK)
        status = soak_open(soak);
    if (status == OMENDB_OK)
        status = soak_compare(soak);
    if (status != OMENDB_OK)
        soak_fail(soak, "reopening", status);
    soak->closed = 0;
    pthread_cond_broadcast(&soak->changed);
    pthread_mutex_unlock(&soak->mutex);
}

/* ------------------------------------------------------------------------------------------------
 * what may not grow */

struct soak_sample {
    uint64_t resident, descriptors, disk;
};

static struct soak_sample soak_sample(const struct soak *soak)
{
    struct soak_sample sample = {0, soak_entries("/proc/self/fd", 0), soak_entries(soak->path, 1)};
    unsigned long long pages = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file != NULL && fscanf(file, "%llu %llu", &pages, &resident) == 2)
        sample.resident = resident * (uint64_t)sysconf(_SC_PAGESIZE);
    if (file != NULL)
        fclose(file);
    return sample;
}

static void soak_keep_largest(struct soak_sample *largest, struct soak_sample sample)
{
    if (sample.resident > largest->resident)
        largest->resident = sample.resident;
    if (sample.descriptors > largest->descriptors)
        largest->descriptors = sample.descriptors;
    if (sample.disk > largest->disk)
        largest->disk = sample.disk;
}

static void soak_print(const char *when, const struct soak_sample *sample)
{
    printf("  %-12s at most %6.1f MiB resident, %3llu descriptors, %6.1f MiB on disk\n", when,
           (double)sample->resident / 1048576.0, (unsigned long long)sample->descriptors,
           (double)sample->disk / 1048576.0);
}

/* Watches for so many seconds; thirds[0] is the time to warm up. */
static void soak_watch(struct soak *soak, uint64_t seconds, struct soak_sample thirds[3])
{
    for (uint64_t second = 0; second < seconds && !atomic_load(&soak->stop); second++) {
        soak_pause(1000);
        soak_keep_largest(&thirds[second * 3 / seconds], soak_sample(soak));
        if (second % SOAK_REOPEN_S == SOAK_REOPEN_S - 1)
            soak_reopen(soak);
        if (second % 600 == 599) {
            soak_print("so far", &thirds[second * 3 / seconds]);
            fflush(stdout);
        }
    }
}

static void soak_work(struct soak *soak, uint64_t seconds, struct soak_sample thirds[3])
{
    static int (*const steps[SOAK_THREADS])(struct soak_worker *) = {
        soak_write, soak_write, soak_search, soak_snapshot, soak_backup, soak_read_beside};
    struct soak_worker workers[SOAK_THREADS];
    pthread_t threads[SOAK_THREADS];
    soak->workers = workers;
    for (uint64_t i = 0; i < SOAK_THREADS; i++)
        workers[i] = (struct soak_worker){soak, i, {support_seed(1) + i}, steps[i], NULL};
    for (uint64_t i = 0; i < SOAK_THREADS; i++)
        if (pthread_create(&threads[i], NULL, soak_run, &workers[i]) != 0)
            abort();
    soak_watch(soak, seconds, thirds);
    pthread_mutex_lock(&soak->mutex);
    atomic_store(&soak->stop, 1);
    pthread_cond_broadcast(&soak->changed);
    pthread_mutex_unlock(&soak->mutex);
    for (size_t i = 0; i < SOAK_THREADS; i++)
        pthread_join(threads[i], NULL);
}

TEST(nothing_grows)
{
    static struct soak soak;
    struct soak_sample thirds[3] = {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}};
    const char *text = getenv("OMENDB_SOAK_SECONDS");
    const uint64_t seconds = text == NULL ? 14400 : strtoull(text, NULL, 0);
    snprintf(soak.path, sizeof soak.path, "%s", support_path("soak"));
    snprintf(soak.backup, sizeof soak.backup, "%s-backup", soak.path);
    pthread_mutex_init(&soak.mutex, NULL);
    pthread_cond_init(&soak.changed, NULL);
    soak.allocator =
        (omendb_allocator){sizeof soak.allocator, &soak, soak_alloc, soak_resize, soak_release};
    soak.closed_descriptors = soak_entries("/proc/self/fd", 0);
    CHECK_EQ_INT(soak_open(&soak), OMENDB_OK);
    soak_work(&soak, seconds, thirds);
    CHECK_EQ_INT(soak.bad, 0);
    CHECK_EQ_INT(soak_compare(&soak), OMENDB_OK);
    CHECK_EQ_INT(support_check(soak.db), OMENDB_OK);
    CHECK_EQ_INT(soak_close(&soak), OMENDB_OK);
    CHECK_EQ_INT(soak.live, 0);
    printf("  %llu s: %llu records written, %llu searches, %llu snapshots, %llu refreshes, %llu "
           "backups, %llu reopenings\n",
           (unsigned long long)seconds, (unsigned long long)soak.writes,
           (unsigned long long)soak.searches, (unsigned long long)soak.snapshots,
           (unsigned long long)soak.refreshes, (unsigned long long)soak.backups,
           (unsigned long long)soak.reopenings);
    soak_print("first third", &thirds[0]);
    soak_print("second third", &thirds[1]);
    soak_print("last third", &thirds[2]);
    CHECK(thirds[2].resident <= thirds[1].resident + thirds[1].resident / 4 + SOAK_SLACK);
    CHECK(thirds[2].descriptors <= thirds[1].descriptors + SOAK_SLACK_FDS);
    CHECK(thirds[2].disk <= thirds[1].disk + thirds[1].disk / 4 + SOAK_SLACK);
}

TEST_MAIN(nothing_grows)
