/* test_backup_targets.c: what a backup finds where it is to be written, and does not replace, takes
 * over, or cleans away. */
#include "internals.h"

#include <pthread.h>

#include "ruins.h"
#include "test.h"

static struct crash_fs *targets_disk;
static omendb *targets_db;

static int targets_open(const omendb_vfs *vfs, const char *path, omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.vfs = vfs;
    options.threads = 0;
    options.wal_limit = 24 * 1024;
    *db = NULL;
    return omendb_open(path, &options, db);
}

static void targets_begin(const omendb_vfs *vfs)
{
    targets_disk = targets_disk == NULL ? ruins_of_all() : targets_disk;
    support_must(targets_open(vfs == NULL ? &targets_disk->vfs : vfs, "/db", &targets_db));
}

static void targets_end(void)
{
    support_must(omendb_close(targets_db));
    crash_fs_destroy(targets_disk);
    targets_disk = NULL;
}

/* 1 where the backup has that code, and the sentence those words. */
static int targets_is(const char *path, int expected, const char *words)
{
    const int status = omendb_backup(targets_db, path);
    if (status == expected && (status == OMENDB_OK || strstr(omendb_errmsg(), words) != NULL))
        return 1;
    fprintf(stderr, "    %s: %s\n", omendb_strerror(status), omendb_errmsg());
    return 0;
}

/* 1 where the backup can be opened and holds what the database does. */
static int targets_is_whole(const char *path)
{
    omendb *copy = NULL;
    uint64_t digest = 0, expected = 1;
    int good = targets_open(&targets_disk->vfs, path, &copy) == OMENDB_OK &&
               support_digest(copy, NULL, &digest) == OMENDB_OK &&
               support_check(copy) == OMENDB_OK &&
               support_digest(targets_db, NULL, &expected) == OMENDB_OK && digest == expected;
    return omendb_close(copy) == OMENDB_OK && good;
}

static struct crash_directory *targets_directory(const char *path)
{
    for (size_t i = 0; i < targets_disk->directory_count; i++)
        if (strcmp(targets_disk->directories[i].path, path) == 0)
            return &targets_disk->directories[i];
    abort();
}

static size_t targets_count(const char *path, const char *prefix)
{
    const struct crash_directory *directory = targets_directory(path);
    size_t count = 0;
    for (size_t i = 0; i < directory->count; i++)
        count += strncmp(directory->entries[i].name, prefix, strlen(prefix)) == 0;
    return count;
}

/* The only file of that kind there. */
static struct crash_inode *targets_file(const char *path, const char *prefix)
{
    const struct crash_directory *directory = targets_directory(path);
    for (size_t i = 0; i < directory->count; i++)
        if (strncmp(directory->entries[i].name, prefix, strlen(prefix)) == 0)
            return &targets_disk->inodes[directory->entries[i].inode];
    abort();
}

static void targets_sign(struct crash_inode *manifest)
{
    format_put32(manifest->data + FORMAT_MANIFEST_CRC,
                 checksum_crc32c(0, manifest->data + 64, (size_t)manifest->size - 64));
    storage_header_end(manifest->data);
}

/* ------------------------------------------------------------------------------------------------
 * a backup that is there */

enum { TARGETS_FEATURES, TARGETS_COMMIT, TARGETS_KIND, TARGETS_SIZE, TARGETS_NEXT, TARGETS_LIES };

static void targets_lie(uint8_t *manifest, int lie)
{
    uint8_t *file = manifest + FORMAT_MANIFEST_BYTES;
    const uint32_t files = format_get32(manifest + FORMAT_MANIFEST_FILES);
    uint64_t *const commit = (uint64_t *)(void *)(manifest + FORMAT_MANIFEST_COMMIT);
    switch (lie) {
    case TARGETS_FEATURES:
        format_put32(manifest + FORMAT_HEADER_READ_ONLY, 1);
        break;
    case TARGETS_COMMIT:
        *commit += 1000;
        break;
    case TARGETS_KIND: /* of one that no collection names */
        format_put32(manifest + FORMAT_MANIFEST_COLLECTIONS, 0);
        format_put64(manifest + FORMAT_MANIFEST_LENGTH,
                     FORMAT_MANIFEST_BYTES + (uint64_t)files * FORMAT_FILE_BYTES);
        format_put32(file + FORMAT_FILE_KIND, FORMAT_KIND_SEGMENT + FORMAT_KIND_OVERLAY -
                                                  format_get32(file + FORMAT_FILE_KIND));
        break;
    case TARGETS_SIZE:
        format_put64(file + (files - 1) * FORMAT_FILE_BYTES + FORMAT_FILE_SIZE, 77);
        break;
    default:
        format_put64(file + files * FORMAT_FILE_BYTES + FORMAT_COLLECTION_NEXT_ID, 77777);
        break;
    }
}

TEST(a_backup_that_cannot_be_an_earlier_state_is_not_replaced)
{
    static const struct {
        int code;
        const char *words;
    } expected[TARGETS_LIES] = {{OMENDB_FORMAT, "a later version of OmenDB wrote"},
                                {OMENDB_MISMATCH, "it is the older one"},
                                {OMENDB_MISMATCH, "has another file number"},
                                {OMENDB_MISMATCH, "has another file number"},
                                {OMENDB_MISMATCH, "has another MANIFEST-"}};
    for (int lie = 0; lie < TARGETS_LIES; lie++) {
        targets_begin(NULL);
        /* What is prepared would be written anew, with another manifest. */
        CHECK_EQ_INT(omendb_rollback_prepared(targets_db, "waits"), OMENDB_OK);
        CHECK_EQ_INT(omendb_forget_prepared(targets_db, "waits"), OMENDB_OK);
        CHECK_EQ_INT(omendb_forget_prepared(targets_db, "done"), OMENDB_OK);
        CHECK(targets_is("/backup", OMENDB_OK, ""));
        struct crash_inode *manifest = targets_file("/backup", "MANIFEST-");
        targets_lie(manifest->data, lie);
        manifest->size = format_get64(manifest->data + FORMAT_MANIFEST_LENGTH);
        targets_sign(manifest);
        CHECK(targets_is("/backup", expected[lie].code, expected[lie].words));
        CHECK_EQ_INT(targets_count("/backup", "MANIFEST-"), 1);
        targets_end();
    }
}

/* More than is looked at in one go. */
TEST(what_lies_about_in_a_backup_is_removed_however_much_it_is)
{
    targets_begin(NULL);
    CHECK(targets_is("/backup", OMENDB_OK, ""));
    for (uint64_t i = 0; i < 100; i++) {
        char name[STORAGE_NAME_BYTES];
        storage_name(i % 3 == 0 ? STORAGE_MANIFEST : STORAGE_SEGMENT, 1000 + i, name);
        crash_fs_add_file(targets_disk, "/backup", name, "x", 1);
    }
    for (int i = 0; i < 2; i++)
        CHECK(targets_is("/backup", OMENDB_OK, ""));
    CHECK_EQ_INT(targets_count("/backup", "MANIFEST-"), 1);
    CHECK_EQ_INT(targets_count("/backup", "seg-10"), 0);
    CHECK(targets_is_whole("/backup"));
    targets_end();
}

/* Of two manifests that are held the newer one counts, whichever is found first. */
TEST(files_that_readers_of_a_backup_may_need_stay)
{
    static const char *const names[] = {"MANIFEST-990", "MANIFEST-980"};
    void *directory = NULL, *handles[2];
    targets_begin(NULL);
    CHECK(targets_is("/backup", OMENDB_OK, ""));
    CHECK_EQ_INT(targets_disk->vfs.open_directory(targets_disk, "/backup", 0, &directory),
                 OMENDB_OK);
    for (size_t i = 0; i < 2; i++) {
        crash_fs_add_file(targets_disk, "/backup", names[i], "x", 1);
        CHECK_EQ_INT(targets_disk->vfs.open(targets_disk, directory, names[i], OMENDB_OPEN_READ,
                                            &handles[i]),
                     OMENDB_OK);
        CHECK_EQ_INT(targets_disk->vfs.lock(targets_disk, handles[i], OMENDB_LOCK_SHARED),
                     OMENDB_OK);
    }
    crash_fs_add_file(targets_disk, "/backup", "seg-985", "x", 1);
    crash_fs_add_file(targets_disk, "/backup", "seg-995", "x", 1);
    CHECK(targets_is("/backup", OMENDB_OK, ""));
    CHECK_EQ_INT(targets_count("/backup", "MANIFEST-9"), 2);
    CHECK_EQ_INT(targets_count("/backup", "seg-985"), 1);
    CHECK_EQ_INT(targets_count("/backup", "seg-995"), 0);
    for (size_t i = 0; i < 2; i++)
        CHECK_EQ_INT(targets_disk->vfs.close(targets_disk, handles[i]), OMENDB_OK);
    targets_disk->vfs.close_directory(targets_disk, directory);
    CHECK(targets_is("/backup", OMENDB_OK, ""));
    CHECK_EQ_INT(targets_count("/backup", "MANIFEST-9") + targets_count("/backup", "seg-9"), 0);
    targets_end();
}

/* ------------------------------------------------------------------------------------------------
 * an unfinished one */

/* The header of a first backup that a crash cut off. */
static void targets_add_unfinished(size_t size, int whole)
{
    uint8_t bytes[FORMAT_HEADER_BYTES + 8] = {0};
    storage_header_begin(bytes, FORMAT_MAGIC_UNFINISHED);
    format_put64(bytes + FORMAT_HEADER_OWN, targets_db->database_id);
    storage_header_end(bytes);
    bytes[30] ^= (uint8_t)!whole;
    crash_fs_add_file(targets_disk, "/backup", FORMAT_UNFINISHED_NAME, bytes, size);
}

TEST(an_unfinished_backup_is_taken_over_where_it_is_known_whose_it_is)
{
    static const struct {
        size_t size;
        int whole, numbered, code;
    } cases[] = {{64, 1, 1, OMENDB_OK},     {64, 0, 0, OMENDB_OK},     {10, 1, 0, OMENDB_OK},
                 {64, 0, 1, OMENDB_EXISTS}, {72, 0, 0, OMENDB_EXISTS}, {10, 1, 1, OMENDB_EXISTS}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        targets_begin(NULL);
        targets_add_unfinished(cases[i].size, cases[i].whole);
        if (cases[i].numbered)
            crash_fs_add_file(targets_disk, "/backup", "seg-985", "x", 1);
        CHECK(targets_is("/backup", cases[i].code, "holds an unfinished backup whose"));
        CHECK(cases[i].code != OMENDB_OK || targets_is_whole("/backup"));
        targets_end();
    }
}

/* Each call fails once: an error, and then the backup is made; or it was. What lies beside a mark
 * that could not be read is touched only once it can be. */
TEST(an_unfinished_backup_that_cannot_be_read_is_left)
{
    uint64_t hits = 1, left = 0;
    const uint64_t step = support_scale() >= 1.0 ? 1 : 5;
    for (uint64_t at = 1; hits != 0; at += step) {
        targets_begin(NULL);
        targets_add_unfinished(64, 1);
        crash_fs_add_file(targets_disk, "/backup", "seg-985", "x", 1);
        crash_faults_begin(targets_disk, CRASH_CALL_ALL, at, 0, OMENDB_IOERR, EIO);
        const int status = omendb_backup(targets_db, "/backup");
        hits = targets_disk->faults.hits;
        targets_disk->faults.kinds = 0;
        CHECK(status == OMENDB_OK || status == OMENDB_IOERR || status == OMENDB_POISONED ||
              status == OMENDB_EXISTS);
        if (status == OMENDB_EXISTS) {
            CHECK_EQ_INT(targets_count("/backup", "seg-985"), 1);
            CHECK_EQ_INT(targets_count("/backup", "MANIFEST-"), 0);
            left++;
        }
        if (status != OMENDB_OK) { /* what failed may have been a sync of the source */
            (void)omendb_close(targets_db);
            CHECK_EQ_INT(targets_open(&targets_disk->vfs, "/db", &targets_db), OMENDB_OK);
        }
        CHECK(status == OMENDB_OK || targets_is("/backup", OMENDB_OK, ""));
        CHECK(targets_is_whole("/backup"));
        targets_end();
    }
    CHECK(left > 0 || step > 1);
}

/* ------------------------------------------------------------------------------------------------
 * file systems */

static int targets_identities;

static int targets_identity(void *context, void *directory, char *text, size_t capacity)
{
    (void)context;
    (void)directory;
    snprintf(text, capacity, "%d", ++targets_identities);
    return OMENDB_OK;
}

/* Above each directory is another one. */
static int targets_open_directory(void *context, const char *path, int create, void **directory)
{
    struct crash_fs *disk = context;
    return disk->vfs.open_directory(context, strstr(path, "..") != NULL ? "/db" : path, create,
                                    directory);
}

/* Manifests cannot be locked for oneself alone. */
static int targets_lock(void *context, void *file, int lock)
{
    const struct crash_handle *handle = file;
    struct crash_fs *disk = context;
    return lock == OMENDB_LOCK_EXCLUSIVE && strcmp(disk->inodes[handle->inode].kind, "LOCK") != 0
               ? OMENDB_UNSUPPORTED
               : disk->vfs.lock(context, file, lock);
}

/* No directory is found to be the one above, as far as it is looked for. */
TEST(a_backup_is_made_where_directories_have_no_end)
{
    targets_disk = ruins_of_all();
    omendb_vfs vfs = targets_disk->vfs;
    vfs.identity = targets_identity;
    vfs.open_directory = targets_open_directory;
    targets_begin(&vfs);
    CHECK(targets_is("/backup", OMENDB_OK, ""));
    targets_identities = 0;
    CHECK(targets_is("/backup", OMENDB_OK, ""));
    CHECK(targets_identities > 64);
    CHECK(targets_is_whole("/backup"));
    CHECK(targets_is("b", OMENDB_OK, ""));
    CHECK(targets_is_whole("b"));
    targets_end();
}

/* Where nobody can hold a manifest, older ones go. */
TEST(a_backup_is_made_where_manifests_cannot_be_locked)
{
    targets_begin(NULL);
    CHECK(targets_is("/backup", OMENDB_OK, ""));
    crash_fs_add_file(targets_disk, "/backup", "MANIFEST-990", "x", 1);
    support_must(omendb_close(targets_db));
    omendb_vfs vfs = targets_disk->vfs;
    vfs.lock = targets_lock;
    targets_begin(&vfs);
    CHECK(targets_is("/backup", OMENDB_OK, ""));
    CHECK_EQ_INT(targets_count("/backup", "MANIFEST-990"), 0);
    targets_end();
}

static int targets_write(void *context, void *file, uint64_t offset, const void *buffer,
                         size_t size)
{
    const struct crash_handle *handle = file;
    struct crash_fs *disk = context;
    errno = ENOSPC;
    return strncmp(disk->inodes[handle->inode].kind, "backup.tmp", 10) == 0
               ? OMENDB_FULL
               : disk->vfs.write(context, file, offset, buffer, size);
}

static int targets_unlink(void *context, void *directory, const char *name)
{
    struct crash_fs *disk = context;
    const struct crash_directory *at = directory;
    errno = EIO;
    return strcmp(at->path, "/backup") == 0 && strcmp(name, "backup.tmp") == 0 &&
                   crash_find((struct crash_directory *)directory, name) != NULL
               ? OMENDB_IOERR
               : disk->vfs.unlink(context, directory, name);
}

static int targets_sync_directory(void *context, void *directory)
{
    struct crash_fs *disk = context;
    const struct crash_directory *at = directory;
    errno = EIO;
    /* Once the mark is there. */
    return strcmp(at->path, "/backup") == 0 && targets_identities++ > 0
               ? OMENDB_IOERR
               : disk->vfs.sync_directory(context, directory);
}

/* What a first backup left behind keeps its mark: the next one takes it over. */
TEST(a_first_backup_that_fails_and_cannot_clean_up_stays_marked)
{
    for (int i = 0; i < 3; i++) {
        targets_disk = ruins_of_all();
        omendb_vfs vfs = targets_disk->vfs;
        vfs.write = targets_write;
        if (i == 1)
            vfs.unlink = targets_unlink;
        if (i == 2)
            vfs.sync_directory = targets_sync_directory;
        targets_identities = 0;
        targets_begin(&vfs);
        CHECK(targets_is("/backup", OMENDB_FULL, ""));
        CHECK_EQ_INT(targets_count("/backup", FORMAT_UNFINISHED_NAME), i != 0);
        support_must(omendb_close(targets_db));
        targets_begin(NULL);
        CHECK(targets_is("/backup", OMENDB_OK, ""));
        CHECK(targets_is_whole("/backup"));
        targets_end();
    }
}

static int targets_refuse_shared(void *context, void *file, int lock)
{
    struct crash_fs *disk = context;
    errno = EIO;
    return lock == OMENDB_LOCK_SHARED ? OMENDB_IOERR : disk->vfs.lock(context, file, lock);
}

TEST(a_manifest_that_cannot_be_held_is_named)
{
    uint64_t nothing = 0;
    targets_disk = ruins_of_all();
    omendb_vfs vfs = targets_disk->vfs;
    vfs.lock = targets_refuse_shared;
    targets_begin(&vfs);
    CHECK_EQ_INT(omendb_count(NULL, NULL, &nothing), OMENDB_MISUSE);
    CHECK(targets_is("/backup", OMENDB_IOERR, "MANIFEST-"));
    CHECK(strstr(omendb_errmsg(), "cannot be locked") != NULL);
    targets_end();
}

/* ------------------------------------------------------------------------------------------------
 * a database in memory */

static struct targets_saving {
    omendb *db;
    char path[4200];
    int status;
    char text[ERROR_TEXT_BYTES];
} targets_saving;

static void *targets_save(void *unused)
{
    targets_saving.status = omendb_backup(targets_saving.db, targets_saving.path);
    snprintf(targets_saving.text, sizeof targets_saving.text, "%s", omendb_errmsg());
    return unused;
}

/* Begins to save, and keeps it from its checkpoint while `meanwhile` is at work. */
static int targets_save_beside(void (*meanwhile)(omendb_collection *docs), omendb_collection *docs)
{
    char lock[4300];
    pthread_t thread;
    snprintf(targets_saving.path, sizeof targets_saving.path, "%s", support_path("saved"));
    support_remove(targets_saving.path);
    snprintf(lock, sizeof lock, "%s/LOCK", targets_saving.path);
    platform_mutex_lock(&targets_saving.db->maintenance_mutex);
    ruins_must(pthread_create(&thread, NULL, targets_save, NULL));
    for (int i = 0; i < 60000 && access(lock, F_OK) != 0; i++)
        platform_sleep_us(1000);
    meanwhile(docs);
    platform_mutex_unlock(&targets_saving.db->maintenance_mutex);
    ruins_must(pthread_join(thread, NULL));
    return targets_saving.status;
}

static void targets_prepare(omendb_collection *docs)
{
    ruins_prepare_one(targets_saving.db, docs, "waits", 3);
    ruins_must(support_put(docs, NULL, 40, 40, RUINS_DIM));
}

static void targets_settle(omendb_collection *docs)
{
    targets_prepare(docs);
    ruins_must(omendb_commit_prepared(targets_saving.db, "waits"));
    ruins_must(omendb_forget_prepared(targets_saving.db, "waits"));
}

static uint64_t targets_saved_records(void)
{
    omendb *copy = NULL;
    omendb_collection *docs = NULL;
    uint64_t count = UINT64_MAX;
    ruins_must(targets_open(NULL, targets_saving.path, &copy));
    ruins_must(omendb_collection_open(copy, "docs", NULL, &docs));
    ruins_must(omendb_count(docs, NULL, &count));
    omendb_collection_close(docs);
    ruins_must(omendb_close(copy));
    return count;
}

/* A copy that has what was committed after a transaction was prepared, but not that, has a hole. */
TEST(what_is_prepared_until_the_checkpoint_keeps_a_database_in_memory_from_being_saved)
{
    omendb_collection *docs = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = RUINS_DIM;
    ruins_must(targets_open(NULL, ":memory:", &targets_saving.db));
    ruins_must(omendb_collection_create(targets_saving.db, "docs", &schema, &docs));
    ruins_put(docs, 0, 30, 1);
    CHECK_EQ_INT(targets_save_beside(targets_prepare, docs), OMENDB_BUSY);
    CHECK(strstr(targets_saving.text, "has 1 prepared transactions") != NULL);
    CHECK_EQ_INT(omendb_backup(targets_saving.db, targets_saving.path), OMENDB_BUSY);
    ruins_must(omendb_rollback_prepared(targets_saving.db, "waits"));
    ruins_must(omendb_forget_prepared(targets_saving.db, "waits"));
    CHECK_EQ_INT(omendb_backup(targets_saving.db, targets_saving.path), OMENDB_OK);
    CHECK_EQ_INT(targets_saved_records(), 31);
    CHECK_EQ_INT(targets_save_beside(targets_settle, docs), OMENDB_OK);
    CHECK_EQ_INT(targets_saved_records(), 30);
    omendb_collection_close(docs);
    ruins_must(omendb_close(targets_saving.db));
}

/* ------------------------------------------------------------------------------------------------
 * damage */

/* Of a source with two bad blocks the first is told. */
TEST(a_source_that_is_damaged_twice_is_refused_by_its_first_block)
{
    float vectors[500 * 32];
    omendb_collection *collection = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = 32;
    targets_begin(NULL);
    for (uint64_t i = 0; i < 500; i++)
        support_vector(i, 32, vectors + i * 32);
    CHECK_EQ_INT(omendb_collection_create(targets_db, "more", &schema, &collection), OMENDB_OK);
    CHECK_EQ_INT(omendb_add_batch(collection, NULL, 500, NULL, vectors, OMENDB_F32, NULL),
                 OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_optimize(targets_db, NULL, NULL), OMENDB_OK);
    CHECK(targets_is("/backup", OMENDB_OK, ""));
    struct crash_inode *largest = NULL;
    const struct crash_directory *directory = targets_directory("/db");
    for (size_t i = 0; i < directory->count; i++) {
        struct crash_inode *inode = &targets_disk->inodes[directory->entries[i].inode];
        if (strncmp(directory->entries[i].name, "seg-", 4) == 0 &&
            (largest == NULL || inode->size > largest->size))
            largest = inode;
    }
    CHECK(largest->size > 3 * BLOCK_BYTES);
    largest->data[100] ^= 1;
    largest->data[2 * BLOCK_BYTES] ^= 1;
    CHECK(targets_is("/second", OMENDB_CORRUPT, "backup: "));
    CHECK(strstr(omendb_errmsg(), "block 0") != NULL ||
          strstr(omendb_errmsg(), "offset 0") != NULL);
    targets_end();
}

TEST_MAIN(a_backup_that_cannot_be_an_earlier_state_is_not_replaced,
          what_lies_about_in_a_backup_is_removed_however_much_it_is,
          files_that_readers_of_a_backup_may_need_stay,
          an_unfinished_backup_is_taken_over_where_it_is_known_whose_it_is,
          an_unfinished_backup_that_cannot_be_read_is_left,
          a_backup_is_made_where_directories_have_no_end,
          a_backup_is_made_where_manifests_cannot_be_locked,
          a_first_backup_that_fails_and_cannot_clean_up_stays_marked,
          a_manifest_that_cannot_be_held_is_named,
          what_is_prepared_until_the_checkpoint_keeps_a_database_in_memory_from_being_saved,
          a_source_that_is_damaged_twice_is_refused_by_its_first_block)
