/* support.h: what the tests of the whole library share: a generator of random numbers that one seed
 * replays, vectors whose distances are exact in f32, a folder to work in, and a digest of
 * everything that a database holds.
 *
 * Invariant: component values are small integers, so that sums of products are exact in every order
 * of addition and in every stored type; a test may compare distances and vectors by ==.
 *
 * Environment: OMENDB_TEST_SCALE (1) scales the number of repetitions, for slow builds;
 * OMENDB_TEST_SEED replaces the seed; OMENDB_TEST_DIRECTORY is the folder to work in. */
#ifndef OMENDB_TEST_SUPPORT_H
#define OMENDB_TEST_SUPPORT_H

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "omendb.h"

#define SUPPORT_DIM_MAX 32

/* ------------------------------------------------------------------------------------------------
 * chance */

/* splitmix64 (Steele, Lea, Flood 2014): any seed is good. */
struct support_random {
    uint64_t state;
};

static inline uint64_t support_mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

static inline uint64_t support_next(struct support_random *random)
{
    random->state += UINT64_C(0x9e3779b97f4a7c15);
    return support_mix(random->state);
}

/* 0 .. below - 1 */
static inline uint64_t support_below(struct support_random *random, uint64_t below)
{
    return support_next(random) % below;
}

static inline double support_scale(void)
{
    const char *text = getenv("OMENDB_TEST_SCALE");
    const double scale = text == NULL ? 1.0 : strtod(text, NULL);
    return scale > 0.0 ? scale : 1.0;
}

/* `count` times the scale, at least `least`. */
static inline uint64_t support_scaled(uint64_t count, uint64_t least)
{
    const uint64_t scaled = (uint64_t)((double)count * support_scale());
    return scaled < least ? least : scaled;
}

/* The same for what takes a minute in a plain build: slow builds take the scale of `fewer`. */
static inline uint64_t support_scaled_instrumented(uint64_t count, uint64_t fewer, uint64_t least)
{
    return support_scaled(support_scale() < 1.0 ? fewer : count, least);
}

static inline uint64_t support_seed(uint64_t otherwise)
{
    const char *text = getenv("OMENDB_TEST_SEED");
    return text == NULL ? otherwise : strtoull(text, NULL, 0);
}

/* The number after `name` among the arguments, or `otherwise`. */
static inline uint64_t support_argument(int argc, char **argv, const char *name, uint64_t otherwise)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return strtoull(argv[i + 1], NULL, 0);
    return otherwise;
}

static inline int support_flag(int argc, char **argv, const char *name)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return 1;
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * vectors */

/* dim integers in -7..7, not all 0, that `value` determines. */
static inline void support_vector(uint64_t value, uint32_t dim, float *vector)
{
    struct support_random random = {value};
    for (uint32_t i = 0; i < dim; i++)
        vector[i] = (float)((int)support_below(&random, 15) - 7);
    if (vector[0] == 0.0f)
        vector[0] = 1.0f;
}

static inline float support_l2(const float *a, const float *b, uint32_t dim)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < dim; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

/* ------------------------------------------------------------------------------------------------
 * digest: a sum over collections and records, so that order does not matter */

static inline uint64_t support_hash(const void *data, size_t size, uint64_t seed)
{
    const unsigned char *bytes = data;
    uint64_t hash = seed ^ UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * UINT64_C(0x100000001b3);
    return support_mix(hash);
}

static inline uint64_t support_hash_collection(const char *name)
{
    return support_hash(name, strlen(name), 1);
}

static inline uint64_t support_hash_record(uint64_t collection_hash, uint64_t id,
                                           const float *vector, uint32_t dim)
{
    return support_hash(vector, dim * sizeof *vector, collection_hash ^ support_mix(id + 1));
}

/* Of key and metadata, as they are told; 0: there is neither. */
static inline uint64_t support_hash_document(uint64_t collection_hash, uint64_t id, const char *key,
                                             const char *metadata)
{
    if (key[0] == '\0' && strcmp(metadata, "{}") == 0)
        return 0;
    return support_hash(metadata, strlen(metadata),
                        support_hash(key, strlen(key), collection_hash ^ support_mix(id + 2)));
}

/* Adds key and metadata of a record. OMENDB_CORRUPT also where the key leads to another one. */
static inline int support_digest_document(omendb_collection *collection, omendb_txn *txn,
                                          uint64_t hash, uint64_t id, uint64_t *digest)
{
    char key[OMENDB_KEY_MAX + 1], metadata[4096];
    uint64_t found = id;
    int status = omendb_get_key(collection, txn, id, key, sizeof key, NULL);
    if (status == OMENDB_OK)
        status = omendb_get_metadata(collection, txn, id, NULL, 0, metadata, sizeof metadata, NULL);
    if (status == OMENDB_OK && key[0] != '\0')
        status = omendb_find(collection, txn, key, &found);
    if (status != OMENDB_OK)
        return status == OMENDB_NOTFOUND ? OMENDB_CORRUPT : status;
    *digest += support_hash_document(hash, id, key, metadata);
    return found == id ? OMENDB_OK : OMENDB_CORRUPT;
}

/* Of limits; 0: there are none. */
static inline uint64_t support_hash_limits(uint64_t collection_hash, const omendb_limits *limits)
{
    const uint64_t numbers[4] = {limits->records, limits->bytes, limits->queries_per_second,
                                 limits->writes_per_second};
    if ((numbers[0] | numbers[1] | numbers[2] | numbers[3]) == 0)
        return 0;
    return support_hash(numbers, sizeof numbers, collection_hash ^ 3);
}

static inline uint64_t support_hash_field(uint64_t collection_hash, const char *name, uint32_t type,
                                          uint32_t required, int strict)
{
    return support_hash(name, strlen(name), collection_hash ^ (type * 4 + required * 2 + 5)) +
           (uint64_t)strict;
}

/* Adds limits and declared fields of a collection, which no snapshot keeps. */
static inline int support_digest_settings(omendb_collection *collection, uint64_t hash,
                                          uint64_t *digest)
{
    char name[OMENDB_FIELD_MAX + 1];
    omendb_limits limits = OMENDB_LIMITS_INIT;
    omendb_field field = OMENDB_FIELD_INIT;
    int strict = 0, status = omendb_collection_get_limits(collection, &limits);
    if (status == OMENDB_OK)
        status = omendb_collection_declaration(collection, NULL, &strict);
    *digest += status == OMENDB_OK ? support_hash_limits(hash, &limits) : 0;
    for (size_t i = 0; status == OMENDB_OK; i++) {
        status = omendb_collection_field(collection, i, &field, name, sizeof name);
        if (status == OMENDB_OK)
            *digest += support_hash_field(hash, name, field.type, field.required, strict);
    }
    return status == OMENDB_DONE ? OMENDB_OK : status;
}

/* Adds the records of a collection, read by a scan, to the digest. */
static inline int support_digest_collection(omendb *db, const char *name, omendb_txn *txn,
                                            uint64_t *digest)
{
    float vector[SUPPORT_DIM_MAX];
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *collection = NULL;
    omendb_rows *rows = NULL;
    uint64_t id = 0, seen = 0, count = 0;
    const uint64_t hash = support_hash_collection(name);
    int status = omendb_collection_open(db, name, NULL, &collection);
    if (status == OMENDB_OK)
        status = omendb_collection_schema(collection, &schema);
    if (status == OMENDB_OK && schema.dim > SUPPORT_DIM_MAX)
        status = OMENDB_MISMATCH;
    if (status == OMENDB_OK)
        status = omendb_count(collection, txn, &count);
    if (status == OMENDB_OK && txn == NULL)
        status = support_digest_settings(collection, hash, digest);
    if (status == OMENDB_OK)
        status = omendb_scan(collection, txn, 0, UINT64_MAX - 1, &rows);
    *digest += hash;
    while (status == OMENDB_OK) {
        status = omendb_rows_next(rows, &id, OMENDB_F32, vector);
        if (status == OMENDB_OK) {
            *digest += support_hash_record(hash, id, vector, schema.dim);
            status = support_digest_document(collection, txn, hash, id, digest);
            seen++;
        }
    }
    omendb_rows_close(rows);
    omendb_collection_close(collection);
    if (status != OMENDB_DONE)
        return status;
    return seen == count ? OMENDB_OK : OMENDB_CORRUPT;
}

static inline uint64_t support_hash_prepared(const char *name, int state)
{
    return support_hash(name, strlen(name), 1000 + (uint64_t)state);
}

/* Digest of all collections and, but for a snapshot, of settings and prepared transactions.
 * OMENDB_CORRUPT also where a count and a scan differ. */
static inline int support_digest(omendb *db, omendb_txn *txn, uint64_t *digest)
{
    char name[256];
    int state, told = OMENDB_OK;
    *digest = 0;
    for (size_t i = 0; txn == NULL && told == OMENDB_OK; i++) {
        told = omendb_prepared_name(db, i, name, sizeof name, &state);
        *digest += told == OMENDB_OK ? support_hash_prepared(name, state) : 0;
    }
    if (txn == NULL && told != OMENDB_DONE)
        return told;
    for (size_t i = 0;; i++) {
        int status = omendb_collection_name(db, i, name, sizeof name);
        if (status == OMENDB_DONE)
            return OMENDB_OK;
        if (status == OMENDB_OK)
            status = support_digest_collection(db, name, txn, digest);
        if (status != OMENDB_OK)
            return status;
    }
}

/* ------------------------------------------------------------------------------------------------
 * folders */

static inline void support_remove(const char *path)
{
    char child[4096];
    struct stat facts;
    DIR *entries;
    struct dirent *entry;
    if (lstat(path, &facts) != 0)
        return;
    if (!S_ISDIR(facts.st_mode)) {
        unlink(path);
        return;
    }
    entries = opendir(path);
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if ((size_t)snprintf(child, sizeof child, "%s/%s", path, entry->d_name) < sizeof child)
            support_remove(child);
    }
    if (entries != NULL)
        closedir(entries);
    rmdir(path);
}

/* Where the test may write; made once, removed at exit when it is ours. */
static char support_own_folder[64];

static inline void support_remove_own_folder(void)
{
    static long maker;
    if (maker == 0)
        maker = (long)getpid();
    else if (maker == (long)getpid())
        support_remove(support_own_folder);
}

static inline const char *support_folder(void)
{
    const char *given = getenv("OMENDB_TEST_DIRECTORY");
    if (given != NULL && given[0] != '\0')
        return given;
    if (support_own_folder[0] == '\0') {
        snprintf(support_own_folder, sizeof support_own_folder, "/tmp/omendb-test-XXXXXX");
        if (mkdtemp(support_own_folder) == NULL)
            abort();
        chmod(support_own_folder, 0711);
        support_remove_own_folder();
        atexit(support_remove_own_folder);
    }
    return support_own_folder;
}

/* The path of a database in that folder; what was there is removed. */
static inline const char *support_path(const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", support_folder(), name);
    support_remove(path);
    return path;
}

/* ------------------------------------------------------------------------------------------------
 * talk */

/* What a test needs before it can begin. */
static inline void support_must(int status)
{
    if (status == OMENDB_OK)
        return;
    fprintf(stderr, "preparing: %s: %s\n", omendb_strerror(status), omendb_errmsg());
    exit(1);
}

/* Sentences that were told: all of them, and those with the words; wanted NULL: none has. */
struct support_report {
    const char *wanted;
    uint64_t lines, told;
};

/* OMENDB_TEST_TALK: shows them. */
static inline void support_note(void *context, const char *line)
{
    struct support_report *report = context;
    report->lines++;
    report->told += report->wanted != NULL && strstr(line, report->wanted) != NULL;
    if (getenv("OMENDB_TEST_TALK") != NULL)
        fprintf(stderr, "    %s\n", line);
}

static inline void support_count_problem(void *context, const char *line)
{
    ++*(uint64_t *)context;
    fprintf(stderr, "    check: %s\n", line);
}

/* OMENDB_OK and no problem, or what went wrong. */
static inline int support_check(omendb *db)
{
    uint64_t problems = 0;
    const int status = omendb_check(db, support_count_problem, &problems, NULL);
    return status == OMENDB_OK && problems != 0 ? OMENDB_CORRUPT : status;
}

/* All that waits in the background, unit by unit. */
static inline int support_work(omendb *db)
{
    int more = 1, status = OMENDB_OK;
    while (more && status == OMENDB_OK)
        status = omendb_work(db, 0, &more);
    return status;
}

/* Adds or replaces one record with the vector that `value` determines. */
static inline int support_put(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                              uint64_t value, uint32_t dim)
{
    float vector[SUPPORT_DIM_MAX];
    omendb_record record = OMENDB_RECORD_INIT;
    support_vector(value, dim, vector);
    record.id = id;
    record.vector = vector;
    return omendb_put(collection, txn, &record, NULL);
}

#endif
