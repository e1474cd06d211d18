/* test_kill.c: a child writes and is killed with SIGKILL at a random moment; the parent opens the
 * database and looks.
 *
 * Commit n is one transaction over two collections: it puts three records with keys and metadata
 * into "data", updates the metadata of one and deletes one, and writes n into record 0 of "last".
 * The child says n over a pipe after each commit returned. So the parent knows from record 0 how
 * far the database is: not behind what was said, at most one commit ahead; and replaying that many
 * commits on an array must give the same records.
 *
 * Several databases are written and killed side by side, in shards of KILL_SHARD cycles.
 *
 *     test_kill [CYCLES]        200 cycles */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "parallel.h"
#include "support.h"
#include "test.h"

#define KILL_DIM   16
#define KILL_IDS   500
#define KILL_SHARD 50

static uint64_t kill_cycles;

static uint64_t kill_put_id(uint64_t commit, uint64_t i)
{
    return support_mix(commit * 8 + i) % KILL_IDS;
}

static uint64_t kill_delete_id(uint64_t commit)
{
    return support_mix(commit * 8 + 7) % KILL_IDS;
}

static uint64_t kill_update_id(uint64_t commit)
{
    return support_mix(commit * 8 + 6) % KILL_IDS;
}

/* What a record must be: 0 where it is absent, or was not updated since it was put. */
struct kill_record {
    uint64_t value;
    uint64_t update; /* the commit */
};

/* The same on an array. A deletion comes last. */
static void kill_model_commit(struct kill_record *records, uint64_t commit)
{
    for (uint64_t i = 0; i < 3; i++)
        records[kill_put_id(commit, i)] = (struct kill_record){commit * 8 + i, 0};
    if (records[kill_update_id(commit)].value != 0)
        records[kill_update_id(commit)].update = commit;
    records[kill_delete_id(commit)] = (struct kill_record){0, 0};
}

static void kill_key(uint64_t id, char key[32])
{
    snprintf(key, 32, "key of %llu", (unsigned long long)id);
}

static void kill_metadata(const struct kill_record *record, char json[96])
{
    const int length =
        snprintf(json, 96, "{\"even\":%s", record->value % 2 == 0 ? "true" : "false");
    if (record->update != 0)
        snprintf(json + length, (size_t)(96 - length), ",\"update\":%llu,\"value\":%llu}",
                 (unsigned long long)record->update, (unsigned long long)record->value);
    else
        snprintf(json + length, (size_t)(96 - length), ",\"value\":%llu}",
                 (unsigned long long)record->value);
}

static int kill_open(const char *path, uint64_t seed, omendb **db, omendb_collection **data,
                     omendb_collection **last)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.threads = (int32_t)(seed % 3);
    options.wal_limit = 32 * 1024;
    options.tail_limit = 16 * 1024;
    options.io = seed % 4 == 0 ? OMENDB_IO_PREAD : OMENDB_IO_MAP;
    schema.dim = KILL_DIM;
    schema.M = 6;
    schema.ef_construction = 24;
    int status = omendb_open(path, &options, db);
    if (status == OMENDB_OK)
        status = omendb_collection_open_or_create(*db, "data", &schema, data);
    schema.dim = 4;
    if (status == OMENDB_OK)
        status = omendb_collection_open_or_create(*db, "last", &schema, last);
    return status;
}

static int kill_put(omendb_collection *data, omendb_txn *txn, uint64_t id, uint64_t value)
{
    const struct kill_record wanted = {value, 0};
    omendb_record record = OMENDB_RECORD_INIT;
    float vector[KILL_DIM];
    char key[32], json[96];
    support_vector(value, KILL_DIM, vector);
    kill_key(id, key);
    kill_metadata(&wanted, json);
    record.id = id;
    record.vector = vector;
    record.key = key;
    record.metadata = json;
    return omendb_put(data, txn, &record, NULL);
}

static int kill_update(omendb_collection *data, omendb_txn *txn, uint64_t commit)
{
    char patch[64];
    snprintf(patch, sizeof patch, "{\"update\": %llu}", (unsigned long long)commit);
    const int status = omendb_update(data, txn, kill_update_id(commit), patch);
    return status == OMENDB_NOTFOUND ? OMENDB_OK : status;
}

static int kill_commit(omendb *db, omendb_collection *data, omendb_collection *last,
                       uint64_t commit)
{
    float number[4] = {(float)(commit % 1000), (float)(commit / 1000), 1.0f, 0.0f};
    omendb_record record = OMENDB_RECORD_INIT;
    omendb_txn *txn = NULL;
    int status = omendb_txn_begin(db, OMENDB_READ_WRITE, &txn);
    for (uint64_t i = 0; i < 3 && status == OMENDB_OK; i++)
        status = kill_put(data, txn, kill_put_id(commit, i), commit * 8 + i);
    if (status == OMENDB_OK)
        status = kill_update(data, txn, commit);
    const uint64_t gone = kill_delete_id(commit);
    if (status == OMENDB_OK)
        status = omendb_delete_batch(data, txn, 1, &gone, NULL);
    record.id = 0;
    record.vector = number;
    if (status == OMENDB_OK)
        status = omendb_put(last, txn, &record, NULL);
    if (status == OMENDB_OK)
        return omendb_txn_commit(txn);
    omendb_txn_rollback(txn);
    return status;
}

/* Writes commits from `first` on until it is killed. */
static void kill_child(const char *path, uint64_t first, uint64_t seed, int pipe_end)
{
    omendb *db = NULL;
    omendb_collection *data = NULL, *last = NULL;
    struct support_random random = {seed};
    int status = kill_open(path, seed, &db, &data, &last);
    for (uint64_t commit = first; status == OMENDB_OK; commit++) {
        status = kill_commit(db, data, last, commit);
        if (status == OMENDB_OK &&
            write(pipe_end, &commit, sizeof commit) != (ssize_t)sizeof commit)
            break;
        const uint64_t dice = support_below(&random, 100);
        if (dice == 0)
            status = omendb_optimize(db, NULL, NULL);
        else if (dice < 4)
            status = omendb_checkpoint(db);
    }
    fprintf(stderr, "the child: %s: %s\n", omendb_strerror(status), omendb_errmsg());
    _exit(1);
}

/* Starts a child, kills it after a while. Returns the last commit that it said, or `before`. */
static uint64_t kill_run(const char *path, uint64_t before, uint64_t seed, int *died_alone)
{
    int ends[2], status = 0;
    uint64_t said = before, commit;
    struct support_random random = {seed * 3 + 1};
    if (pipe(ends) != 0)
        return before;
    const pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        kill_child(path, before + 1, seed, ends[1]);
    }
    close(ends[1]);
    /* Some die while they open; the others after their first commit, however slow the machine is.
     */
    if (seed % 4 != 0 && read(ends[0], &commit, sizeof commit) == (ssize_t)sizeof commit)
        said = commit;
    const struct timespec pause = {0, (long)(100000 + support_below(&random, 60000000))};
    nanosleep(&pause, NULL);
    kill(child, SIGKILL);
    while (read(ends[0], &commit, sizeof commit) == (ssize_t)sizeof commit)
        said = commit;
    close(ends[0]);
    waitpid(child, &status, 0);
    *died_alone = !WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL;
    return said;
}

/* The commit that the database is at; SIZE_MAX on an error. */
static uint64_t kill_position(omendb_collection *last)
{
    float number[4];
    const int status = omendb_get(last, NULL, 0, OMENDB_F32, number);
    if (status == OMENDB_NOTFOUND)
        return 0;
    return status == OMENDB_OK ? (uint64_t)number[0] + (uint64_t)number[1] * 1000 : UINT64_MAX;
}

static int kill_vector_is_right(omendb_collection *data, uint64_t id, uint64_t value)
{
    float vector[KILL_DIM], wanted[KILL_DIM];
    const int status = omendb_get(data, NULL, id, OMENDB_F32, vector);
    if (status != (value == 0 ? OMENDB_NOTFOUND : OMENDB_OK)) {
        fprintf(stderr, "record %llu: %s\n", (unsigned long long)id, omendb_strerror(status));
        return 0;
    }
    support_vector(value, KILL_DIM, wanted);
    if (value != 0 && memcmp(vector, wanted, sizeof vector) != 0) {
        fprintf(stderr, "record %llu has another vector\n", (unsigned long long)id);
        return 0;
    }
    return 1;
}

static int kill_document_is_right(omendb_collection *data, uint64_t id,
                                  const struct kill_record *record)
{
    char key[32], wanted[96], json[96] = "";
    uint64_t found = OMENDB_ID_AUTO;
    kill_key(id, key);
    int status = omendb_find(data, NULL, key, &found);
    if (status == OMENDB_NOTFOUND && record->value == 0)
        return 1;
    if (status == OMENDB_OK && record->value != 0 && found == id)
        status = omendb_get_metadata(data, NULL, id, NULL, 0, json, sizeof json, NULL);
    kill_metadata(record, wanted);
    if (status == OMENDB_OK && record->value != 0 && strcmp(json, wanted) == 0)
        return 1;
    fprintf(stderr, "record %llu: %s; its key leads to %llu, its metadata is %s and not %s\n",
            (unsigned long long)id, omendb_strerror(status), (unsigned long long)found, json,
            record->value != 0 ? wanted : "none");
    return 0;
}

/* Whether a filter finds as many records as it should. */
static int kill_filter_finds(omendb *db, omendb_collection *data, const char *text, uint64_t wanted)
{
    omendb_filter *filter = NULL;
    uint64_t count = 0;
    int status = omendb_filter_compile(db, text, &filter);
    if (status == OMENDB_OK)
        status = omendb_count_matching(data, NULL, filter, NULL, NULL, &count);
    omendb_filter_free(filter);
    if (status == OMENDB_OK && count == wanted)
        return 1;
    fprintf(stderr, "%s: %s, %llu and not %llu\n", text, omendb_strerror(status),
            (unsigned long long)count, (unsigned long long)wanted);
    return 0;
}

static int kill_records_are_right(omendb *db, omendb_collection *data,
                                  const struct kill_record *records)
{
    uint64_t even = 0, updated = 0;
    for (uint64_t id = 0; id < KILL_IDS; id++) {
        if (!kill_vector_is_right(data, id, records[id].value) ||
            !kill_document_is_right(data, id, &records[id]))
            return 0;
        even += records[id].value != 0 && records[id].value % 2 == 0;
        updated += records[id].update != 0;
    }
    return kill_filter_finds(db, data, "even", even) &&
           kill_filter_finds(db, data, "update IS NOT NULL", updated);
}

/* Opens after the kill and compares; moves records and *commit on. */
static int kill_check(const char *path, uint64_t said, uint64_t seed, struct kill_record *records,
                      uint64_t *commit)
{
    omendb *db = NULL;
    omendb_collection *data = NULL, *last = NULL;
    int good = 0;
    const int status = kill_open(path, seed + 1, &db, &data, &last);
    const uint64_t position = status == OMENDB_OK ? kill_position(last) : UINT64_MAX;
    if (position == UINT64_MAX) {
        fprintf(stderr, "opening: %s: %s\n", omendb_strerror(status), omendb_errmsg());
    } else if (position < said || position > said + 1) {
        fprintf(stderr, "commit %llu was acknowledged, the database is at %llu\n",
                (unsigned long long)said, (unsigned long long)position);
    } else {
        while (*commit < position)
            kill_model_commit(records, ++*commit);
        good = kill_records_are_right(db, data, records) && support_check(db) == OMENDB_OK;
    }
    omendb_collection_close(data);
    omendb_collection_close(last);
    if (omendb_close(db) != OMENDB_OK)
        good = 0;
    return good;
}

struct kill_counts {
    uint64_t cycles, commits;
};

/* KILL_SHARD cycles on a database of its own. */
static int kill_shard(uint64_t shard, void *result, const void *argument)
{
    static struct kill_record records[KILL_IDS];
    struct kill_counts *counts = result;
    char name[32], path[4096];
    int good = 1, died_alone = 0;
    (void)argument;
    memset(records, 0, sizeof records);
    snprintf(name, sizeof name, "killed-%llu", (unsigned long long)shard);
    snprintf(path, sizeof path, "%s", support_path(name));
    for (uint64_t i = 0; i < KILL_SHARD && good; i++) {
        const uint64_t seed = support_seed(1) + shard * KILL_SHARD + i;
        const uint64_t said = kill_run(path, counts->commits, seed, &died_alone);
        good = kill_check(path, said, seed, records, &counts->commits) && !died_alone;
        counts->cycles++;
        if (!good)
            fprintf(stderr, "FAILED: seed %llu, cycle %llu of its database\n",
                    (unsigned long long)seed, (unsigned long long)i);
    }
    if (good)
        support_remove(path);
    return !good;
}

TEST(kill_9_loses_nothing_that_was_acknowledged)
{
    const uint64_t shards = (kill_cycles + KILL_SHARD - 1) / KILL_SHARD;
    struct kill_counts *counts = parallel_memory(shards * sizeof *counts);
    struct kill_counts sum = {0, 0};
    support_folder();
    const int failures = parallel_run(shards, 1, kill_shard, sizeof *counts, counts, NULL);
    for (uint64_t i = 0; i < shards; i++) {
        sum.cycles += counts[i].cycles;
        sum.commits += counts[i].commits;
    }
    munmap(counts, shards * sizeof *counts);
    printf("  %llu cycles, %llu commits\n", (unsigned long long)sum.cycles,
           (unsigned long long)sum.commits);
    CHECK_EQ_INT(failures, 0);
    CHECK(sum.commits > 0);
}

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {kill_9_loses_nothing_that_was_acknowledged};
    kill_cycles = argc > 1 ? strtoull(argv[1], NULL, 0) : support_scaled(200, 20);
    return test_run(1, argv, all, 1, "kill_9_loses_nothing_that_was_acknowledged");
}
