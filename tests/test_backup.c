/* test_backup.c: backups onto earlier ones. What is copied, what is kept, what is refused; that the
 * target is whole at every moment; that what is restored is what a model of the database holds. */
#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <sys/wait.h>

#include "crash_vfs.h"
#include "support.h"
#include "test.h"

#define BACKUP_DIM         6
#define BACKUP_IDS         400
#define BACKUP_COLLECTIONS 3

static const char *const backup_names[BACKUP_COLLECTIONS] = {"alpha", "beta", "gamma"};

/* ------------------------------------------------------------------------------------------------
 * a database and its model: value of each id, 0 where it is absent */

struct backup_world {
    const omendb_vfs *vfs;
    omendb *db;
    omendb_collection *collections[BACKUP_COLLECTIONS];
    int present[BACKUP_COLLECTIONS];
    uint64_t value[BACKUP_COLLECTIONS][BACKUP_IDS];
    uint64_t next_value;
    int prepared; /* a transaction waits for its outcome */
};

static int backup_open(const omendb_vfs *vfs, const char *path, int read_only, omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.vfs = vfs;
    options.threads = 0;
    options.read_only = (uint32_t)read_only;
    options.wal_limit = 256 * 1024;
    return omendb_open(path, &options, db);
}

static int backup_create(struct backup_world *world, int c)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = BACKUP_DIM;
    schema.M = 4;
    schema.ef_construction = 16;
    world->present[c] = 1;
    return omendb_collection_create(world->db, backup_names[c], &schema, &world->collections[c]);
}

static int backup_drop(struct backup_world *world, int c)
{
    omendb_collection_close(world->collections[c]);
    world->collections[c] = NULL;
    world->present[c] = 0;
    memset(world->value[c], 0, sizeof world->value[c]);
    return omendb_collection_drop(world->db, backup_names[c]);
}

static int backup_put(struct backup_world *world, int c, uint64_t first, uint64_t count)
{
    float vectors[BACKUP_IDS * BACKUP_DIM];
    uint64_t ids[BACKUP_IDS];
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = (first + i) % BACKUP_IDS;
        world->value[c][ids[i]] = ++world->next_value;
        support_vector(world->value[c][ids[i]], BACKUP_DIM, vectors + i * BACKUP_DIM);
    }
    return omendb_put_batch(world->collections[c], NULL, (size_t)count, ids, vectors, OMENDB_F32,
                            NULL);
}

static int backup_delete(struct backup_world *world, int c, uint64_t first, uint64_t count)
{
    uint64_t ids[BACKUP_IDS];
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = (first + i) % BACKUP_IDS;
        world->value[c][ids[i]] = 0;
    }
    return omendb_delete_batch(world->collections[c], NULL, (size_t)count, ids, NULL);
}

static uint64_t backup_model(const struct backup_world *world)
{
    float vector[BACKUP_DIM];
    uint64_t digest = world->prepared ? support_hash_prepared("waits", OMENDB_PREPARED_WAITING) : 0;
    for (int c = 0; c < BACKUP_COLLECTIONS; c++) {
        const uint64_t hash = support_hash_collection(backup_names[c]);
        if (!world->present[c])
            continue;
        digest += hash;
        for (uint64_t id = 0; id < BACKUP_IDS; id++) {
            if (world->value[c][id] == 0)
                continue;
            support_vector(world->value[c][id], BACKUP_DIM, vector);
            digest += support_hash_record(hash, id, vector, BACKUP_DIM);
        }
    }
    return digest;
}

/* A transaction that changes what nothing else does waits from here on. */
static int backup_prepare(struct backup_world *world)
{
    omendb_txn *txn = NULL;
    int status = omendb_txn_begin(world->db, OMENDB_READ_WRITE, &txn);
    if (status == OMENDB_OK)
        status = support_put(world->collections[1], txn, BACKUP_IDS, 7, BACKUP_DIM);
    if (status == OMENDB_OK)
        status = omendb_txn_prepare(txn, "waits");
    else
        omendb_txn_rollback(txn);
    world->prepared = status == OMENDB_OK;
    return status;
}

/* Two collections, one of them in a file of its own. */
static int backup_begin_on(struct backup_world *world, const omendb_vfs *vfs, const char *path)
{
    memset(world, 0, sizeof *world);
    world->vfs = vfs;
    int status = backup_open(vfs, path, 0, &world->db);
    if (status == OMENDB_OK)
        status = backup_create(world, 0);
    if (status == OMENDB_OK)
        status = backup_create(world, 1);
    if (status == OMENDB_OK)
        status = backup_put(world, 0, 0, 300);
    if (status == OMENDB_OK)
        status = backup_put(world, 1, 50, 40);
    return status;
}

static char backup_source[4096], backup_target[4096];

static int backup_begin(struct backup_world *world, const char *name)
{
    char copy[128];
    snprintf(copy, sizeof copy, "%s-copy", name);
    snprintf(backup_target, sizeof backup_target, "%s", support_path(copy));
    snprintf(backup_source, sizeof backup_source, "%s", support_path(name));
    return backup_begin_on(world, NULL, backup_source);
}

static int backup_end(struct backup_world *world)
{
    for (int c = 0; c < BACKUP_COLLECTIONS; c++)
        omendb_collection_close(world->collections[c]);
    return omendb_close(world->db);
}

/* OMENDB_OK where the database at the path, opened read-only, is whole and holds what the model
 * does. */
static int backup_holds(const struct backup_world *world, const char *path)
{
    omendb *db = NULL;
    uint64_t digest = 0;
    int status = backup_open(world->vfs, path, 1, &db);
    if (status == OMENDB_OK)
        status = support_digest(db, NULL, &digest);
    if (status == OMENDB_OK)
        status = support_check(db);
    if (status != OMENDB_OK)
        fprintf(stderr, "    %s: %s: %s\n", path, omendb_strerror(status), omendb_errmsg());
    omendb_close(db);
    return status == OMENDB_OK && digest != backup_model(world) ? OMENDB_MISMATCH : status;
}

static uint64_t backup_copied(omendb *db)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    return omendb_get_stats(db, &stats) == OMENDB_OK ? stats.backup_bytes : UINT64_MAX;
}

static uint64_t backup_kept(omendb *db)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    return omendb_get_stats(db, &stats) == OMENDB_OK ? stats.backup_kept_bytes : UINT64_MAX;
}

static int backup_is(int status, int expected, const char *part)
{
    if (status == expected && strstr(omendb_errmsg(), part) != NULL)
        return 1;
    fprintf(stderr, "    %s: %s\n", omendb_strerror(status), omendb_errmsg());
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * directories */

/* Names that begin with `prefix`; the first one goes to `name`. */
static int backup_count_files(const char *path, const char *prefix, char name[64])
{
    int count = 0;
    struct dirent *entry;
    DIR *entries = opendir(path);
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        if (entry->d_name[0] == '.' || strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
            continue;
        if (count++ == 0 && name != NULL)
            snprintf(name, 64, "%.63s", entry->d_name);
    }
    if (entries != NULL)
        closedir(entries);
    return count;
}

/* A digest of names and bytes. */
static uint64_t backup_directory_digest(const char *path)
{
    static unsigned char bytes[1 << 20];
    char child[4400];
    uint64_t digest = 0;
    struct dirent *entry;
    DIR *entries = opendir(path);
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(child, sizeof child, "%s/%s", path, entry->d_name);
        FILE *file = fopen(child, "rb");
        const size_t size = file == NULL ? 0 : fread(bytes, 1, sizeof bytes, file);
        if (file != NULL)
            fclose(file);
        digest += support_hash(bytes, size, support_hash(entry->d_name, strlen(entry->d_name), 3));
    }
    if (entries != NULL)
        closedir(entries);
    return digest;
}

static int backup_copy_tree(const char *from, const char *to)
{
    char a[4400], b[4400];
    static unsigned char bytes[1 << 20];
    struct dirent *entry;
    int good = 1;
    support_remove(to);
    DIR *entries = mkdir(to, 0700) == 0 ? opendir(from) : NULL;
    if (entries == NULL)
        return 0;
    while ((entry = readdir(entries)) != NULL && good) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(a, sizeof a, "%s/%s", from, entry->d_name);
        snprintf(b, sizeof b, "%s/%s", to, entry->d_name);
        FILE *in = fopen(a, "rb"), *out = fopen(b, "wb");
        size_t size = 0;
        while (in != NULL && out != NULL && (size = fread(bytes, 1, sizeof bytes, in)) != 0)
            good = good && fwrite(bytes, 1, size, out) == size;
        good = good && in != NULL && out != NULL;
        if (in != NULL)
            fclose(in);
        if (out != NULL)
            good = fclose(out) == 0 && good;
    }
    closedir(entries);
    return good;
}

static int backup_flip(const char *directory, const char *name, long offset)
{
    char path[4400];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "r+b");
    if (file == NULL)
        return 0;
    int good = fseek(file, offset, SEEK_SET) == 0;
    const int byte = fgetc(file);
    good = good && byte != EOF && fseek(file, offset, SEEK_SET) == 0 &&
           fputc(byte ^ 0x10, file) != EOF;
    return fclose(file) == 0 && good;
}

/* ------------------------------------------------------------------------------------------------
 * what is copied */

TEST(a_backup_onto_an_earlier_one_copies_what_is_new)
{
    struct backup_world world;
    char name[64], path[4400];
    struct stat before, after;
    omendb_collection *none;
    CHECK_EQ_INT(backup_begin(&world, "new"), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(world.db, "none", NULL, &none), OMENDB_NOTFOUND);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK(strstr(omendb_errmsg(), "\"none\"") != NULL); /* what goes well sets no sentence */
    const uint64_t first = backup_copied(world.db);
    CHECK(first > 0 && backup_kept(world.db) == 0);
    CHECK_EQ_INT(backup_count_files(backup_target, "seg-", name), 1);
    snprintf(path, sizeof path, "%s/%s", backup_target, name);
    CHECK(stat(path, &before) == 0);
    /* A delete is an overlay, a few records a small segment. */
    CHECK_EQ_INT(backup_delete(&world, 0, 10, 20), OMENDB_OK);
    CHECK_EQ_INT(backup_put(&world, 1, 0, 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK(stat(path, &after) == 0);
    CHECK(before.st_ino == after.st_ino && before.st_mtime == after.st_mtime);
    CHECK_EQ_INT(backup_count_files(backup_target, "seg-", NULL), 2);
    CHECK_EQ_INT(backup_count_files(backup_target, "ovl-", NULL), 1);
    CHECK_EQ_INT(backup_count_files(backup_target, "MANIFEST-", NULL), 1);
    CHECK_EQ_INT(backup_count_files(backup_target, "", NULL), 6); /* CURRENT and LOCK, too */
    CHECK_EQ_INT(backup_kept(world.db), first);
    CHECK(backup_copied(world.db) > first && backup_copied(world.db) < 3 * first);
    CHECK_EQ_INT(backup_holds(&world, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
}

TEST(a_backup_without_changes_copies_nothing)
{
    struct backup_world world;
    CHECK_EQ_INT(backup_begin(&world, "same"), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    const uint64_t copied = backup_copied(world.db);
    const uint64_t bytes = backup_directory_digest(backup_target);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_copied(world.db), copied);
    CHECK_EQ_INT(backup_kept(world.db), copied);
    CHECK(backup_directory_digest(backup_target) == bytes);
    CHECK_EQ_INT(backup_holds(&world, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
}

/* Deletes, merges, a drop, a new collection of the dropped one's name, and a reopening. */
static int backup_change(struct backup_world *world, int round)
{
    int status = OMENDB_OK;
    const uint64_t at = (uint64_t)round * 37;
    if (round == 1)
        status = backup_delete(world, 0, 30, 120);
    if (round == 2 || round == 5)
        status = omendb_optimize(world->db, NULL, NULL);
    if (round == 3)
        status = backup_drop(world, 1);
    if (round == 3 && status == OMENDB_OK)
        status = backup_create(world, 2);
    if (round == 4)
        status = backup_create(world, 1);
    if (round > 3 && status == OMENDB_OK)
        status = backup_put(world, 1, at, 15);
    if (status == OMENDB_OK)
        status = backup_put(world, 0, at, 60);
    if (status == OMENDB_OK)
        status = backup_delete(world, 0, at + 10, 7);
    if (status == OMENDB_OK && world->present[2])
        status = backup_put(world, 2, at, 200);
    return status;
}

static int backup_reopen(struct backup_world *world)
{
    int status = backup_end(world);
    memset(world->collections, 0, sizeof world->collections);
    if (status == OMENDB_OK)
        status = backup_open(world->vfs, backup_source, 0, &world->db);
    for (int c = 0; c < BACKUP_COLLECTIONS && status == OMENDB_OK; c++)
        if (world->present[c])
            status =
                omendb_collection_open(world->db, backup_names[c], NULL, &world->collections[c]);
    return status;
}

/* Copies a backup elsewhere and goes on there, in a world of its own. */
static int backup_restore(const struct backup_world *world)
{
    char restored[4300];
    struct backup_world own = *world;
    snprintf(restored, sizeof restored, "%s-restored", backup_target);
    if (!backup_copy_tree(backup_target, restored))
        return OMENDB_IOERR;
    memset(own.collections, 0, sizeof own.collections);
    int status = backup_open(own.vfs, restored, 0, &own.db);
    for (int c = 0; c < BACKUP_COLLECTIONS && status == OMENDB_OK; c++)
        if (own.present[c])
            status = omendb_collection_open(own.db, backup_names[c], NULL, &own.collections[c]);
    if (status == OMENDB_OK)
        status = backup_put(&own, 0, 3, 30);
    if (status == OMENDB_OK)
        status = backup_delete(&own, 0, 20, 9);
    if (status == OMENDB_OK)
        status = omendb_optimize(own.db, NULL, NULL);
    if (status == OMENDB_OK)
        status = support_check(own.db);
    const int closed = backup_end(&own);
    if (status == OMENDB_OK)
        status = closed == OMENDB_OK ? backup_holds(&own, restored) : closed;
    support_remove(restored);
    return status;
}

TEST(every_backup_of_a_row_holds_what_the_model_holds)
{
    struct backup_world world;
    CHECK_EQ_INT(backup_begin(&world, "row"), OMENDB_OK);
    for (int round = 0; round < 7; round++) {
        CHECK_EQ_INT(backup_change(&world, round), OMENDB_OK);
        CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
        CHECK_EQ_INT(backup_holds(&world, backup_target), OMENDB_OK);
        CHECK_EQ_INT(backup_restore(&world), OMENDB_OK);
        CHECK_EQ_INT(backup_count_files(backup_target, "MANIFEST-", NULL), 1);
        if (round == 3)
            CHECK_EQ_INT(backup_reopen(&world), OMENDB_OK);
    }
    CHECK(backup_kept(world.db) > 0);
    CHECK_EQ_INT(backup_count_files(backup_target, "seg-", NULL),
                 backup_count_files(backup_source, "seg-", NULL));
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
}

TEST(a_database_in_memory_is_saved_again_and_again)
{
    struct backup_world world;
    snprintf(backup_target, sizeof backup_target, "%s", support_path("memory-copy"));
    CHECK_EQ_INT(backup_begin_on(&world, NULL, ":memory:"), OMENDB_OK);
    for (int round = 0; round < 4; round++) {
        CHECK_EQ_INT(backup_change(&world, round), OMENDB_OK);
        CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
        CHECK_EQ_INT(backup_holds(&world, backup_target), OMENDB_OK);
    }
    CHECK(backup_kept(world.db) > 0);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * a damaged target, a damaged source */

TEST(what_is_damaged_or_missing_in_the_target_is_copied_again)
{
    struct backup_world world;
    char name[64], path[4400];
    CHECK_EQ_INT(backup_begin(&world, "repair"), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_count_files(backup_target, "seg-", name), 1);
    snprintf(path, sizeof path, "%s/%s", backup_target, name);
    for (int kind = 0; kind < 4; kind++) {
        const uint64_t copied = backup_copied(world.db);
        if (kind == 0)
            CHECK(backup_flip(backup_target, name, 5000));
        if (kind == 1)
            CHECK(unlink(path) == 0);
        if (kind == 2)
            CHECK(truncate(path, 4096) == 0);
        if (kind == 3)
            CHECK(backup_flip(backup_target, name, 1));
        if (kind == 1) /* else nothing else is to do */
            CHECK_EQ_INT(backup_put(&world, 0, 7, 2), OMENDB_OK);
        CHECK(backup_holds(&world, backup_target) != OMENDB_OK);
        CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
        CHECK(backup_copied(world.db) > copied);
        CHECK_EQ_INT(backup_holds(&world, backup_target), OMENDB_OK);
    }
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
}

TEST(a_damaged_source_leaves_the_former_backup)
{
    struct backup_world world, former;
    char name[64];
    CHECK_EQ_INT(backup_begin(&world, "bad-source"), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    former = world;
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(backup_put(&world, 0, 0, 1), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    CHECK(backup_count_files(backup_source, "seg-", name) > 0);
    CHECK(backup_flip(backup_source, name, 5000));
    const uint64_t bytes = backup_directory_digest(backup_target);
    CHECK(backup_is(omendb_backup(world.db, backup_target), OMENDB_CORRUPT, "seg-"));
    CHECK(backup_directory_digest(backup_target) == bytes);
    CHECK_EQ_INT(backup_holds(&former, backup_target), OMENDB_OK);
    /* The file of the target that the damaged one would replace is damaged, too, elsewhere. */
    CHECK(backup_flip(backup_source, name, 5000));
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK(backup_flip(backup_source, name, 5000));
    CHECK(backup_flip(backup_target, name, 300));
    const uint64_t damaged = backup_directory_digest(backup_target);
    CHECK(backup_is(omendb_backup(world.db, backup_target), OMENDB_CORRUPT, "seg-"));
    CHECK(backup_directory_digest(backup_target) == damaged);
    CHECK(backup_flip(backup_source, name, 5000));
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_holds(&world, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * targets that are refused, and left as they are */

/* Whether the target is refused with this code and words, and no byte of it changes. */
static int backup_is_refused(omendb *db, const char *target, int code, const char *part)
{
    const uint64_t bytes = backup_directory_digest(target);
    return backup_is(omendb_backup(db, target), code, part) &&
           backup_directory_digest(target) == bytes;
}

TEST(a_backup_of_another_database_is_not_replaced)
{
    struct backup_world first, second;
    char target[4096];
    CHECK_EQ_INT(backup_begin(&first, "one"), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(first.db, backup_target), OMENDB_OK);
    snprintf(target, sizeof target, "%s", backup_target);
    CHECK_EQ_INT(backup_begin(&second, "two"), OMENDB_OK);
    CHECK(backup_is_refused(second.db, target, OMENDB_MISMATCH, "is a backup of database"));
    CHECK_EQ_INT(backup_holds(&first, target), OMENDB_OK);
    CHECK_EQ_INT(backup_end(&second), OMENDB_OK);
    CHECK_EQ_INT(backup_end(&first), OMENDB_OK);
}

TEST(directories_with_other_things_are_not_touched)
{
    struct backup_world world, other;
    char path[4400], mine[4096];
    CHECK_EQ_INT(backup_begin(&other, "foreign"), OMENDB_OK);
    CHECK_EQ_INT(backup_end(&other), OMENDB_OK);
    snprintf(mine, sizeof mine, "%s", backup_source);
    CHECK_EQ_INT(backup_begin(&world, "world"), OMENDB_OK);
    CHECK(backup_is_refused(world.db, mine, OMENDB_EXISTS, "is a database"));
    CHECK(backup_is(omendb_backup(world.db, backup_source), OMENDB_EXISTS, "itself"));
    CHECK(mkdir(backup_target, 0700) == 0);
    snprintf(path, sizeof path, "%s/letter.txt", backup_target);
    FILE *file = fopen(path, "w");
    CHECK(file != NULL && fclose(file) == 0);
    CHECK(backup_is_refused(world.db, backup_target, OMENDB_EXISTS, "no backup"));
    CHECK(unlink(path) == 0);
    snprintf(path, sizeof path, "%s/seg-5", backup_target);
    file = fopen(path, "w");
    CHECK(file != NULL && fclose(file) == 0);
    CHECK(backup_is_refused(world.db, backup_target, OMENDB_EXISTS, "not finished"));
    CHECK(unlink(path) == 0);
    /* A lock alone is what a backup that failed leaves. */
    snprintf(path, sizeof path, "%s/LOCK", backup_target);
    file = fopen(path, "w");
    CHECK(file != NULL && fclose(file) == 0);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    /* What a stranger put beside a backup stays. */
    snprintf(path, sizeof path, "%s/letter.txt", backup_target);
    file = fopen(path, "w");
    CHECK(file != NULL && fclose(file) == 0);
    CHECK_EQ_INT(backup_put(&world, 0, 0, 5), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK(access(path, F_OK) == 0);
    CHECK_EQ_INT(backup_holds(&world, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
}

TEST(a_backup_that_is_open_for_writing_is_busy)
{
    struct backup_world world;
    omendb *db = NULL;
    CHECK_EQ_INT(backup_begin(&world, "busy"), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_open(NULL, backup_target, 0, &db), OMENDB_OK);
    CHECK(backup_is_refused(world.db, backup_target, OMENDB_BUSY, "open for writing"));
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    /* It was only looked at. */
    CHECK_EQ_INT(backup_put(&world, 0, 0, 5), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_holds(&world, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
}

/* One record, and the process is gone: the log is all that there is of it. */
static void backup_write_and_die(const char *path)
{
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    if (backup_open(NULL, path, 0, &db) == OMENDB_OK &&
        omendb_collection_open(db, "alpha", NULL, &collection) == OMENDB_OK &&
        support_put(collection, NULL, 77, 77, BACKUP_DIM) == OMENDB_OK)
        _exit(0);
    _exit(1);
}

TEST(a_backup_that_was_written_to_is_not_replaced)
{
    struct backup_world world;
    char other[4300];
    int status = 0;
    omendb *db = NULL;
    CHECK_EQ_INT(backup_begin(&world, "astray"), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    const pid_t child = fork();
    if (child == 0)
        backup_write_and_die(backup_target);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(backup_is_refused(world.db, backup_target, OMENDB_EXISTS, "written to"));
    CHECK_EQ_INT(backup_put(&world, 0, 0, 5), OMENDB_OK);
    CHECK(backup_is_refused(world.db, backup_target, OMENDB_EXISTS, "written to"));
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
    /* It is a database with backups of its own; those of what it was copied from are not. */
    snprintf(other, sizeof other, "%s-other", backup_source);
    support_remove(other);
    CHECK_EQ_INT(backup_open(NULL, backup_source, 0, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(db, other), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(backup_open(NULL, backup_target, 0, &db), OMENDB_OK);
    CHECK(backup_is_refused(db, other, OMENDB_MISMATCH, "is a backup of database"));
    support_remove(other);
    CHECK_EQ_INT(omendb_backup(db, other), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(db, other), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(backup_open(NULL, backup_target, 0, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(db, other), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    support_remove(other);
}

/* A directory that was copied by hand has the id of the first; which goes on, and which is older,
 * the numbers tell. */
TEST(two_databases_of_one_id_do_not_replace_each_others_backups)
{
    struct backup_world world;
    char twin[4300];
    omendb *db = NULL;
    omendb_collection *alpha = NULL;
    CHECK_EQ_INT(backup_begin(&world, "twins"), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    CHECK_EQ_INT(backup_reopen(&world), OMENDB_OK);
    snprintf(twin, sizeof twin, "%s-twin", backup_source);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
    CHECK(backup_copy_tree(backup_source, twin));
    CHECK_EQ_INT(backup_open(NULL, backup_source, 0, &world.db), OMENDB_OK);
    memset(world.collections, 0, sizeof world.collections);
    CHECK_EQ_INT(omendb_collection_open(world.db, "alpha", NULL, &world.collections[0]), OMENDB_OK);
    CHECK_EQ_INT(backup_put(&world, 0, 0, 50), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    /* The twin as it was is behind. */
    CHECK_EQ_INT(backup_open(NULL, twin, 0, &db), OMENDB_OK);
    CHECK(backup_is_refused(db, backup_target, OMENDB_MISMATCH, "older"));
    /* Once it has gone further than the other, its files are others. */
    CHECK_EQ_INT(omendb_collection_open(db, "alpha", NULL, &alpha), OMENDB_OK);
    for (uint64_t i = 0; i < 5; i++) {
        CHECK_EQ_INT(support_put(alpha, NULL, i, 1000 + i, BACKUP_DIM), OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    }
    CHECK(backup_is_refused(db, backup_target, OMENDB_MISMATCH, "another"));
    omendb_collection_close(alpha);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(backup_holds(&world, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
    support_remove(twin);
}

/* ------------------------------------------------------------------------------------------------
 * readers of the target */

TEST(readers_of_a_backup_keep_what_they_opened)
{
    struct backup_world world, first;
    omendb *early = NULL, *late = NULL;
    uint64_t digest = 0;
    char name[64], path[4400];
    CHECK_EQ_INT(backup_begin(&world, "readers"), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_count_files(backup_target, "seg-", name), 1);
    snprintf(path, sizeof path, "%s/%s", backup_target, name);
    first = world;
    CHECK_EQ_INT(backup_open(NULL, backup_target, 1, &early), OMENDB_OK);
    for (int round = 1; round < 4; round++) {
        CHECK_EQ_INT(backup_change(&world, round), OMENDB_OK);
        CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
        CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
        CHECK_EQ_INT(support_digest(early, NULL, &digest), OMENDB_OK);
        CHECK(digest == backup_model(&first));
        CHECK(access(path, F_OK) == 0);
        CHECK(backup_count_files(backup_target, "MANIFEST-", NULL) >= 2);
    }
    CHECK_EQ_INT(backup_open(NULL, backup_target, 1, &late), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(early), OMENDB_OK);
    CHECK_EQ_INT(support_digest(early, NULL, &digest), OMENDB_OK);
    CHECK(digest == backup_model(&world));
    CHECK_EQ_INT(omendb_close(early), OMENDB_OK);
    CHECK_EQ_INT(backup_put(&world, 0, 0, 5), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_count_files(backup_target, "MANIFEST-", NULL), 2);
    CHECK_EQ_INT(omendb_close(late), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, backup_target), OMENDB_OK);
    CHECK(access(path, F_OK) != 0);
    CHECK_EQ_INT(backup_count_files(backup_target, "MANIFEST-", NULL), 1);
    CHECK_EQ_INT(backup_count_files(backup_target, "seg-", NULL),
                 backup_count_files(backup_source, "seg-", NULL));
    CHECK_EQ_INT(backup_holds(&world, backup_target), OMENDB_OK);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * failing file systems */

/* The target on this disk is the former backup or the new one, whole. */
static int backup_disk_is_whole(struct crash_fs *fs, const struct backup_world *former,
                                const struct backup_world *now)
{
    struct crash_fs *disk = crash_fs_copy(fs);
    omendb *db = NULL;
    uint64_t digest = 0;
    int status = backup_open(&disk->vfs, "/copy", 1, &db);
    if (status == OMENDB_OK)
        status = support_digest(db, NULL, &digest);
    if (status == OMENDB_OK)
        status = support_check(db);
    if (status == OMENDB_OK && digest != backup_model(former) && digest != backup_model(now))
        status = OMENDB_MISMATCH;
    omendb_close(db);
    crash_fs_destroy(disk);
    return status;
}

struct backup_fault {
    int kinds, forever, code, reason;
    int prepared; /* a transaction waits: the log is copied, too */
};

/* One backup onto an earlier one, whose call number `at` fails. *over: there was no such call. */
static int backup_fail_once(uint64_t at, const struct backup_fault *fault, int *over)
{
    static struct backup_world world, former;
    struct crash_fs *fs = crash_fs_create(0);
    int status = backup_begin_on(&world, &fs->vfs, "/db");
    if (status == OMENDB_OK && fault->prepared)
        status = backup_prepare(&world);
    if (status == OMENDB_OK)
        status = omendb_backup(world.db, "/copy");
    former = world;
    if (status == OMENDB_OK)
        status = backup_delete(&world, 0, 10, 50);
    /* Then the log follows on that of the former backup at once. */
    if (status == OMENDB_OK && !fault->prepared)
        status = omendb_optimize(world.db, NULL, NULL);
    if (status == OMENDB_OK)
        status = backup_put(&world, 1, 10, 50);
    if (status == OMENDB_OK)
        status = omendb_checkpoint(world.db);
    const int prepared = status;
    crash_faults_begin(fs, fault->kinds, at, fault->forever, fault->code, fault->reason);
    const int failed = prepared == OMENDB_OK ? omendb_backup(world.db, "/copy") : prepared;
    *over = fs->faults.hits == 0;
    crash_faults_begin(fs, 0, 0, 0, 0, 0);
    if (prepared == OMENDB_OK && failed != OMENDB_OK && failed != fault->code &&
        failed != OMENDB_BUSY)
        status = failed;
    if (status == OMENDB_OK)
        status = backup_disk_is_whole(fs, &former, &world);
    /* Once the fault is over it is done, and nothing is left over; unless it was a sync of the
     * source, which checkpoints anew while something is prepared. */
    const int again = status == OMENDB_OK ? omendb_backup(world.db, "/copy") : status;
    status = again == OMENDB_POISONED && fault->prepared ? OMENDB_OK : again;
    if (again == OMENDB_OK)
        status = backup_disk_is_whole(fs, &world, &world);
    if (again == OMENDB_OK && status == OMENDB_OK)
        status = support_check(world.db);
    if (status != OMENDB_OK)
        fprintf(stderr, "    call %llu (%s), %s: %s: %s\n", (unsigned long long)at, fs->faults.call,
                omendb_strerror(failed), omendb_strerror(status), omendb_errmsg());
    backup_end(&world);
    crash_fs_destroy(fs);
    return status;
}

static uint64_t backup_fail_all(const struct backup_fault fault)
{
    int over = 0;
    const uint64_t step = support_scale() >= 1.0 ? 1 : (uint64_t)(1.0 / support_scale());
    for (uint64_t at = 1; !over; at += step)
        if (backup_fail_once(at, &fault, &over) != OMENDB_OK)
            return at;
    return 0;
}

TEST(a_failing_file_system_leaves_the_former_backup_or_the_new_one)
{
    const int all = CRASH_CALL_ALL, space = CRASH_CALL_WRITE | CRASH_CALL_SPACE;
    CHECK_EQ_INT(backup_fail_all((struct backup_fault){all, 0, OMENDB_IOERR, EIO, 0}), 0);
    CHECK_EQ_INT(backup_fail_all((struct backup_fault){all, 1, OMENDB_IOERR, EIO, 0}), 0);
    CHECK_EQ_INT(backup_fail_all((struct backup_fault){space, 0, OMENDB_FULL, ENOSPC, 0}), 0);
    CHECK_EQ_INT(backup_fail_all((struct backup_fault){space, 1, OMENDB_FULL, ENOSPC, 0}), 0);
}

/* The new log is there before the manifest that names it: it must not seem to follow the former. */
TEST(a_log_that_a_failing_backup_copied_does_not_end_the_former_one)
{
    const int all = CRASH_CALL_ALL;
    CHECK_EQ_INT(backup_fail_all((struct backup_fault){all, 0, OMENDB_IOERR, EIO, 1}), 0);
    CHECK_EQ_INT(backup_fail_all((struct backup_fault){all, 1, OMENDB_IOERR, EIO, 1}), 0);
}

/* A process that dies in a backup leaves what it copied: the next one verifies and uses it. */
TEST(what_a_killed_backup_copied_is_used_by_the_next)
{
    static struct backup_world world, former;
    struct crash_fs *fs = crash_fs_create(0);
    uint64_t kept_more = 0;
    CHECK_EQ_INT(backup_begin_on(&world, &fs->vfs, "/db"), OMENDB_OK);
    CHECK_EQ_INT(omendb_backup(world.db, "/copy"), OMENDB_OK);
    former = world;
    const uint64_t whole = backup_copied(world.db);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(backup_put(&world, 0, 10, 50), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    for (uint64_t at = 1; at < 400; at++) {
        struct crash_fs *disk = crash_fs_copy(fs);
        struct backup_world own = world;
        omendb *db = NULL;
        memset(own.collections, 0, sizeof own.collections);
        CHECK_EQ_INT(backup_open(&disk->vfs, "/db", 0, &db), OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
        crash_die_at(disk, at);
        const int status = omendb_backup(db, "/copy");
        omendb_close(db);
        crash_faults_begin(disk, 0, 0, 0, 0, 0);
        CHECK_EQ_INT(backup_disk_is_whole(disk, &former, &own), OMENDB_OK);
        CHECK_EQ_INT(backup_open(&disk->vfs, "/db", 0, &db), OMENDB_OK);
        CHECK_EQ_INT(omendb_backup(db, "/copy"), OMENDB_OK);
        kept_more += backup_copied(db) == 0 && backup_kept(db) > 0;
        CHECK_EQ_INT(backup_disk_is_whole(disk, &own, &own), OMENDB_OK);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        crash_fs_destroy(disk);
        if (status == OMENDB_OK)
            break;
        CHECK(at < 399);
    }
    CHECK(kept_more > 1 && whole > 0);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
    crash_fs_destroy(fs);
}

/* Another database does not take it over, unless nothing was copied yet. */
static int backup_other_is_refused(const struct crash_fs *fs)
{
    struct crash_fs *disk = crash_fs_copy(fs);
    omendb *other = NULL;
    const int bare = crash_directory(disk, "/copy")->count <= 2; /* LOCK, backup.unfinished */
    int status = backup_open(&disk->vfs, "/other", 0, &other);
    if (status == OMENDB_OK && !bare && omendb_backup(other, "/copy") != OMENDB_MISMATCH)
        status = OMENDB_MISUSE;
    omendb_close(other);
    crash_fs_destroy(disk);
    return status;
}

/* Until the end of a first backup it is refused as a database; a backup of the same one goes on. */
static int backup_first_is_taken_over(struct crash_fs *disk, struct backup_world *own,
                                      uint64_t *kept_more)
{
    omendb *db = NULL;
    const int opened = backup_open(&disk->vfs, "/copy", 1, &db);
    int status = opened == OMENDB_NOTFOUND ? OMENDB_OK : opened;
    if (opened == OMENDB_OK)
        omendb_close(db);
    if (opened == OMENDB_FORMAT && strstr(omendb_errmsg(), "not finished here") != NULL)
        status = backup_other_is_refused(disk);
    if (status == OMENDB_OK)
        status = backup_open(&disk->vfs, "/db", 0, &db);
    if (status != OMENDB_OK)
        return status;
    status = omendb_backup(db, "/copy");
    *kept_more += status == OMENDB_OK && opened == OMENDB_FORMAT && backup_kept(db) > 0;
    const int closed = omendb_close(db);
    if (status == OMENDB_OK)
        status = backup_disk_is_whole(disk, own, own);
    if (crash_find(crash_directory(disk, "/copy"), "backup.unfinished") != NULL)
        status = OMENDB_EXISTS;
    return status == OMENDB_OK ? closed : status;
}

TEST(a_killed_first_backup_is_taken_over_by_the_next)
{
    static struct backup_world world;
    struct crash_fs *fs = crash_fs_create(0);
    uint64_t kept_more = 0;
    CHECK_EQ_INT(backup_begin_on(&world, &fs->vfs, "/db"), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(backup_put(&world, 0, 10, 50), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    for (uint64_t at = 1; at < 400; at++) {
        struct crash_fs *disk = crash_fs_copy(fs);
        struct backup_world own = world;
        omendb *db = NULL;
        memset(own.collections, 0, sizeof own.collections);
        CHECK_EQ_INT(backup_open(&disk->vfs, "/db", 0, &db), OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
        crash_die_at(disk, at);
        const int status = omendb_backup(db, "/copy");
        omendb_close(db);
        crash_faults_begin(disk, 0, 0, 0, 0, 0);
        CHECK_EQ_INT(backup_first_is_taken_over(disk, &own, &kept_more), OMENDB_OK);
        crash_fs_destroy(disk);
        if (status == OMENDB_OK)
            break;
        CHECK(at < 399);
    }
    CHECK(kept_more > 1);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
    crash_fs_destroy(fs);
}

/* ------------------------------------------------------------------------------------------------
 * beside a writer */

struct backup_writer {
    struct backup_world *world;
    _Atomic int stop;
    int status;
};

/* Each batch gives all ids of "alpha" one value. */
static void *backup_write_batches(void *argument)
{
    struct backup_writer *writer = argument;
    float vectors[40 * BACKUP_DIM];
    uint64_t ids[40];
    for (uint64_t n = 1; !writer->stop && writer->status == OMENDB_OK; n++) {
        for (uint64_t i = 0; i < 40; i++) {
            ids[i] = i;
            support_vector(n, BACKUP_DIM, vectors + i * BACKUP_DIM);
        }
        writer->status = omendb_put_batch(writer->world->collections[1], NULL, 40, ids, vectors,
                                          OMENDB_F32, NULL);
    }
    return NULL;
}

static int backup_has_whole_batch(const char *path)
{
    float first[BACKUP_DIM], other[BACKUP_DIM];
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    int good = backup_open(NULL, path, 1, &db) == OMENDB_OK &&
               omendb_collection_open(db, "beta", NULL, &collection) == OMENDB_OK &&
               omendb_get(collection, NULL, 0, OMENDB_F32, first) == OMENDB_OK;
    for (uint64_t id = 1; id < 40 && good; id++)
        good = omendb_get(collection, NULL, id, OMENDB_F32, other) == OMENDB_OK &&
               memcmp(first, other, sizeof first) == 0;
    good = good && support_check(db) == OMENDB_OK;
    omendb_collection_close(collection);
    return omendb_close(db) == OMENDB_OK && good;
}

TEST(backups_beside_a_writer_hold_whole_commits)
{
    static struct backup_world world;
    struct backup_writer writer = {&world, 0, OMENDB_OK};
    pthread_t thread;
    int status = OMENDB_OK, whole = 1;
    CHECK_EQ_INT(backup_begin(&world, "beside"), OMENDB_OK);
    CHECK_EQ_INT(backup_put(&world, 1, 0, 40), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    float vector[BACKUP_DIM], vectors[40 * BACKUP_DIM];
    uint64_t ids[40];
    support_vector(1, BACKUP_DIM, vector);
    for (uint64_t i = 0; i < 40; i++) {
        ids[i] = i;
        memcpy(vectors + i * BACKUP_DIM, vector, sizeof vector);
    }
    CHECK_EQ_INT(omendb_put_batch(world.collections[1], NULL, 40, ids, vectors, OMENDB_F32, NULL),
                 OMENDB_OK);
    CHECK(pthread_create(&thread, NULL, backup_write_batches, &writer) == 0);
    for (uint64_t i = 0; i < support_scaled(30, 5) && status == OMENDB_OK && whole; i++) {
        status = omendb_backup(world.db, backup_target);
        whole = backup_has_whole_batch(backup_target);
        if (status == OMENDB_OK && i % 7 == 3)
            status = omendb_optimize(world.db, NULL, NULL);
    }
    writer.stop = 1;
    pthread_join(thread, NULL);
    CHECK_EQ_INT(status, OMENDB_OK);
    CHECK_EQ_INT(writer.status, OMENDB_OK);
    CHECK(whole);
    CHECK(backup_kept(world.db) > 0);
    CHECK_EQ_INT(backup_end(&world), OMENDB_OK);
}

TEST_MAIN(a_backup_onto_an_earlier_one_copies_what_is_new, a_backup_without_changes_copies_nothing,
          every_backup_of_a_row_holds_what_the_model_holds,
          a_database_in_memory_is_saved_again_and_again,
          what_is_damaged_or_missing_in_the_target_is_copied_again,
          a_damaged_source_leaves_the_former_backup, a_backup_of_another_database_is_not_replaced,
          directories_with_other_things_are_not_touched, a_backup_that_is_open_for_writing_is_busy,
          a_backup_that_was_written_to_is_not_replaced,
          two_databases_of_one_id_do_not_replace_each_others_backups,
          readers_of_a_backup_keep_what_they_opened,
          a_failing_file_system_leaves_the_former_backup_or_the_new_one,
          a_log_that_a_failing_backup_copied_does_not_end_the_former_one,
          what_a_killed_backup_copied_is_used_by_the_next,
          a_killed_first_backup_is_taken_over_by_the_next,
          backups_beside_a_writer_hold_whole_commits)
