/* test_opening.c: what lies in a directory, and what others do to it at that moment, decides what
 * opening says.
 *
 * Debris of a process that died is passed over, and what holds commits is not; a directory of
 * strange numbers is refused by name; and a reader that opens beside a writer waits for what it can
 * hold, but not for ever. */
#include "internals.h"

#include <sys/wait.h>

#include "ruins.h"
#include "test.h"

static int opening_open(const omendb_vfs *vfs, uint32_t read_only, uint32_t must_exist, omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.vfs = vfs;
    options.threads = 0;
    options.wal_limit = 24 * 1024;
    options.read_only = read_only;
    options.must_exist = must_exist;
    *db = NULL;
    return omendb_open("/db", &options, db);
}

/* 1 where opening says so, and the sentence has the words. */
static int opening_is(const omendb_vfs *vfs, uint32_t read_only, uint32_t must_exist, int expected,
                      const char *words)
{
    omendb *db = NULL;
    const int status = opening_open(vfs, read_only, must_exist, &db);
    const int told = status == OMENDB_OK || strstr(omendb_errmsg(), words) != NULL;
    if (status != expected || !told)
        fprintf(stderr, "    %s: %s\n", omendb_strerror(status), omendb_errmsg());
    return omendb_close(db) == OMENDB_OK && status == expected && told;
}

static uint64_t opening_digest(const omendb_vfs *vfs)
{
    omendb *db = NULL;
    uint64_t digest = 0;
    if (opening_open(vfs, 1, 0, &db) != OMENDB_OK || support_digest(db, NULL, &digest) != OMENDB_OK)
        digest = 0;
    support_must(omendb_close(db));
    return digest;
}

/* ------------------------------------------------------------------------------------------------
 * debris */

#define OPENING_NOWHERE SIZE_MAX

/* A log of `size` bytes, of which the one at `at` is not zero; version 0: it has no header, either.
 */
static void opening_add_log(struct crash_fs *disk, uint64_t number, uint32_t version, size_t size,
                            size_t at)
{
    static uint8_t bytes[3 * 4096];
    char name[STORAGE_NAME_BYTES];
    memset(bytes, 0, sizeof bytes);
    if (version != 0) {
        storage_header_begin(bytes, FORMAT_MAGIC_WAL);
        format_put32(bytes + FORMAT_HEADER_VERSION, version);
        storage_header_end(bytes);
    }
    if (at != OPENING_NOWHERE)
        bytes[at] ^= 1;
    storage_name(STORAGE_WAL, number, name);
    crash_fs_add_file(disk, "/db", name, bytes, size);
}

TEST(a_log_without_a_header_is_debris)
{
    struct crash_fs *start = ruins_of_all();
    const uint64_t expected = opening_digest(&start->vfs);
    CHECK(expected != 0);
    for (uint32_t read_only = 0; read_only < 2; read_only++) {
        struct crash_fs *disk = crash_fs_copy(start);
        opening_add_log(disk, 900, 0, 3 * 4096, 20);
        opening_add_log(disk, 901, 0, 3 * 4096, 9000);
        CHECK(opening_is(&disk->vfs, read_only, 0, OMENDB_OK, ""));
        CHECK(opening_digest(&disk->vfs) == expected);
        crash_fs_destroy(disk);
    }
    crash_fs_destroy(start);
}

TEST(a_log_of_a_later_version_is_refused_where_something_is_in_it)
{
    struct crash_fs *start = ruins_of_all();
    const uint64_t expected = opening_digest(&start->vfs);
    for (uint32_t read_only = 0; read_only < 2; read_only++) {
        struct crash_fs *disk = crash_fs_copy(start);
        opening_add_log(disk, 899, FORMAT_VERSION + 1, 3 * 4096, OPENING_NOWHERE);
        opening_add_log(disk, 900, FORMAT_VERSION + 1, 3 * 4096, 60);
        CHECK(opening_is(&disk->vfs, read_only, 0, OMENDB_OK, ""));
        CHECK(opening_digest(&disk->vfs) == expected);
        opening_add_log(disk, 901, FORMAT_VERSION + 1, 3 * 4096, 9000);
        CHECK(opening_is(&disk->vfs, read_only, 0, OMENDB_FORMAT, "wal-901: format version 3"));
        crash_fs_destroy(disk);
    }
    crash_fs_destroy(start);
}

/* Each call that reads fails once: that is told, but for the three of the second look at CURRENT,
 * which is taken again. */
TEST(debris_that_cannot_be_read_is_an_error)
{
    static const int codes[] = {OMENDB_IOERR, OMENDB_NOMEM};
    struct crash_fs *start = ruins_of_all();
    const uint64_t expected = opening_digest(&start->vfs);
    opening_add_log(start, 900, 0, 3 * 4096, 20);
    opening_add_log(start, 901, FORMAT_VERSION + 1, 3 * 4096, 60);
    opening_add_log(start, 902, FORMAT_VERSION + 1, 3 * 4096, OPENING_NOWHERE);
    for (int i = 0; i < 2; i++) {
        uint64_t hits = 1, untold = 0;
        for (uint64_t at = 1; hits != 0; at++) {
            struct crash_fs *disk = crash_fs_copy(start);
            omendb *db = NULL;
            uint64_t digest = 0;
            crash_faults_begin(disk, CRASH_CALL_READ, at, 0, codes[i], EIO);
            const int status = opening_open(&disk->vfs, 1, 0, &db);
            hits = disk->faults.hits;
            disk->faults.kinds = 0;
            CHECK(status == codes[i] || status == OMENDB_OK);
            untold += hits != 0 && status == OMENDB_OK;
            if (status == OMENDB_OK) {
                CHECK_EQ_INT(support_digest(db, NULL, &digest), OMENDB_OK);
                CHECK(digest == expected);
            }
            CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
            crash_fs_destroy(disk);
        }
        CHECK_EQ_INT(untold, 3);
    }
    crash_fs_destroy(start);
}

TEST(a_directory_without_current_is_no_database_unless_a_log_holds_commits)
{
    struct crash_fs *disk = crash_fs_create(0);
    crash_fs_add_file(disk, "/db", "LOCK", "", 0);
    opening_add_log(disk, 3, 0, 3 * 4096, 20);
    CHECK(opening_is(&disk->vfs, 1, 0, OMENDB_NOTFOUND, "there is no database at this path"));
    CHECK(opening_is(&disk->vfs, 0, 1, OMENDB_NOTFOUND, "there is no database at this path"));
    opening_add_log(disk, 4, 0, 3 * 4096, 9000);
    CHECK(opening_is(&disk->vfs, 1, 0, OMENDB_CORRUPT,
                     "CURRENT is missing although wal-4 holds commits"));
    CHECK(opening_is(&disk->vfs, 0, 0, OMENDB_CORRUPT,
                     "CURRENT is missing although wal-4 holds commits"));
    for (uint64_t at = 1, hits = 1; hits != 0; at++) {
        crash_faults_begin(disk, CRASH_CALL_READ, at, 0, OMENDB_IOERR, EIO);
        omendb *db = NULL;
        const int status = opening_open(&disk->vfs, 1, 0, &db);
        hits = disk->faults.hits;
        disk->faults.kinds = 0;
        CHECK(db == NULL && (status == OMENDB_IOERR || status == OMENDB_CORRUPT));
        CHECK(hits == 0 || status == OMENDB_IOERR);
    }
    crash_fs_destroy(disk);
}

/* ------------------------------------------------------------------------------------------------
 * numbers */

static int opening_refuse_manifests(void *context, void *directory, const char *name, int flags,
                                    void **file)
{
    if ((flags & OMENDB_OPEN_CREATE) == 0 || strncmp(name, "MANIFEST-", 9) != 0)
        return crash_open(context, directory, name, flags, file);
    errno = EMFILE;
    return OMENDB_IOERR;
}

/* Each begins one, and the manifest in force leads to all of them. */
TEST(logs_of_checkpoints_that_failed_are_followed_however_many)
{
    enum { CHECKPOINTS = 1100 };
    struct crash_fs *disk = crash_fs_create(0);
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *docs = NULL;
    omendb *db = NULL;
    schema.dim = 2;
    options.vfs = &disk->vfs;
    options.threads = 0;
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "docs", &schema, &docs), OMENDB_OK);
    disk->vfs.open = opening_refuse_manifests;
    for (uint64_t id = 0; id < CHECKPOINTS; id++) {
        CHECK_EQ_INT(support_put(docs, NULL, id, id, 2), OMENDB_OK);
        CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_IOERR);
    }
    disk->vfs.open = crash_open;
    omendb_collection_close(docs);
    struct crash_fs *copy = crash_fs_copy(disk);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    const uint64_t expected = opening_digest(&disk->vfs);
    CHECK(expected != 0);
    for (uint32_t read_only = 2; read_only-- > 0;) {
        CHECK(opening_is(&copy->vfs, read_only, 0, OMENDB_OK, ""));
        CHECK(opening_digest(&copy->vfs) == expected);
    }
    crash_fs_destroy(copy);
    crash_fs_destroy(disk);
}

static struct {
    omendb *db, *reader;
    int due, code;
} back;

/* A name goes from one collection to another, which the reader then knows. */
static int back_recreate(void)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *alpha = NULL;
    schema.dim = 2;
    int code = omendb_collection_create(back.db, "alpha", &schema, &alpha);
    omendb_collection_close(alpha);
    if (code == OMENDB_OK)
        code = omendb_collection_drop(back.db, "alpha");
    if (code == OMENDB_OK)
        code = omendb_collection_create(back.db, "alpha", &schema, &alpha);
    if (code == OMENDB_OK)
        code = support_put(alpha, NULL, 7, 7, 2);
    omendb_collection_close(alpha);
    return code == OMENDB_OK ? omendb_refresh(back.reader) : code;
}

static int back_open_file(void *context, void *directory, const char *name, int flags, void **file)
{
    if ((flags & OMENDB_OPEN_CREATE) != 0 && strncmp(name, "MANIFEST-", 9) == 0 && back.due) {
        back.due = 0;
        back.code = back_recreate();
    }
    return crash_open(context, directory, name, flags, file);
}

/* The manifest is that of a moment before, so the reader sees the log do it once more. */
TEST(a_reader_that_goes_back_knows_two_collections_of_one_name_for_a_while)
{
    struct crash_fs *disk = crash_fs_create(0);
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *docs = NULL, *alpha = NULL;
    uint64_t count = 0;
    schema.dim = 2;
    options.vfs = &disk->vfs;
    options.threads = 1;
    CHECK_EQ_INT(omendb_open("/db", &options, &back.db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(back.db, "docs", &schema, &docs), OMENDB_OK);
    options.threads = 0;
    options.read_only = 1;
    CHECK_EQ_INT(omendb_open("/db", &options, &back.reader), OMENDB_OK);
    CHECK_EQ_INT(support_put(docs, NULL, 1, 1, 2), OMENDB_OK);
    back.due = 1;
    disk->vfs.open = back_open_file;
    CHECK_EQ_INT(omendb_checkpoint(back.db), OMENDB_OK);
    disk->vfs.open = crash_open;
    CHECK(back.due == 0);
    CHECK_EQ_INT(back.code, OMENDB_OK);
    for (int again = 0; again < 2; again++) {
        CHECK_EQ_INT(omendb_refresh(back.reader), OMENDB_OK);
        CHECK_EQ_INT(omendb_collection_open(back.reader, "alpha", NULL, &alpha), OMENDB_OK);
        CHECK_EQ_INT(omendb_count(alpha, NULL, &count), OMENDB_OK);
        CHECK_EQ_INT(count, 1);
        omendb_collection_close(alpha);
    }
    omendb_collection_close(docs);
    CHECK_EQ_INT(omendb_close(back.reader), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(back.db), OMENDB_OK);
    crash_fs_destroy(disk);
}

TEST(a_file_of_a_number_that_was_never_given_is_told)
{
    struct crash_fs *disk = ruins_of_all();
    char name[STORAGE_NAME_BYTES];
    storage_name(STORAGE_SEGMENT, MANIFEST_LARGEST_NUMBER, name);
    crash_fs_add_file(disk, "/db", name, "", 0);
    CHECK(opening_is(&disk->vfs, 0, 0, OMENDB_FORMAT, "has a number that none was given"));
    crash_fs_destroy(disk);
}

static int opening_delete(omendb *db)
{
    omendb_collection *collection = NULL;
    int status = omendb_collection_open(db, "plain", NULL, &collection);
    if (status == OMENDB_OK)
        status = omendb_delete(collection, NULL, 7);
    omendb_collection_close(collection);
    return status;
}

/* Readers of other processes hold more manifests than are remembered one by one. */
TEST(more_manifests_than_are_remembered_are_waited_for_all_together)
{
    enum { HELD = DATABASE_RETAINED + 6 };
    struct crash_fs *disk = ruins_of_all();
    void *directory = NULL, *handles[HELD];
    omendb *db = NULL;
    /* All files of the database are newer than those manifests. */
    crash_fs_add_file(disk, "/db", "MANIFEST-5000", "", 0);
    CHECK_EQ_INT(opening_open(&disk->vfs, 0, 0, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_rollback_prepared(db, "waits"), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(disk->vfs.open_directory(disk, "/db", 0, &directory), OMENDB_OK);
    for (uint64_t i = 0; i < HELD; i++) {
        char name[STORAGE_NAME_BYTES];
        storage_name(STORAGE_MANIFEST, 2000 + i, name);
        crash_fs_add_file(disk, "/db", name, "", 0);
        CHECK_EQ_INT(disk->vfs.open(disk, directory, name, OMENDB_OPEN_READ, &handles[i]),
                     OMENDB_OK);
        CHECK_EQ_INT(disk->vfs.lock(disk, handles[i], OMENDB_LOCK_SHARED), OMENDB_OK);
    }
    CHECK_EQ_INT(opening_open(&disk->vfs, 0, 0, &db), OMENDB_OK);
    CHECK_EQ_INT(opening_delete(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "more than 64 manifests may be held by readers") != NULL);
    for (size_t i = 0; i < HELD; i++)
        CHECK_EQ_INT(disk->vfs.close(disk, handles[i]), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(opening_open(&disk->vfs, 0, 0, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(db, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    disk->vfs.close_directory(disk, directory);
    crash_fs_destroy(disk);
}

/* ------------------------------------------------------------------------------------------------
 * beside a writer */

/* What the writer does when the reader opens CURRENT for the n-th time, or locks what it names. */
static struct opening_beside {
    struct crash_fs *disk;
    omendb *writer;
    omendb_collection *collection;
    omendb_vfs vfs; /* the reader's */
    int opened, at; /* of CURRENT */
    int busy;       /* locks that are refused first */
    int overtaken;  /* 1: before the next lock what it is for goes */
    uint64_t value;
} beside;

static void opening_publish(void)
{
    support_must(support_put(beside.collection, NULL, 7, 500 + beside.value++, RUINS_DIM));
    support_must(omendb_checkpoint(beside.writer));
}

static int opening_open_file(void *context, void *directory, const char *name, int flags,
                             void **file)
{
    if (strcmp(name, "CURRENT") == 0 && ++beside.opened == beside.at)
        opening_publish();
    return beside.disk->vfs.open(context, directory, name, flags, file);
}

static int opening_lock(void *context, void *file, int lock)
{
    if (lock == OMENDB_LOCK_SHARED && beside.busy-- > 0)
        return OMENDB_BUSY;
    if (lock == OMENDB_LOCK_SHARED && beside.overtaken) {
        beside.overtaken = 0;
        opening_publish();
        opening_publish();
    }
    return beside.disk->vfs.lock(context, file, lock);
}

static void opening_begin_beside(void)
{
    memset(&beside, 0, sizeof beside);
    beside.disk = ruins_of_all();
    support_must(opening_open(&beside.disk->vfs, 0, 0, &beside.writer));
    support_must(omendb_collection_open(beside.writer, "late", NULL, &beside.collection));
    beside.vfs = beside.disk->vfs;
    beside.vfs.open = opening_open_file;
    beside.vfs.lock = opening_lock;
}

static void opening_end_beside(void)
{
    omendb_collection_close(beside.collection);
    support_must(omendb_close(beside.writer));
    crash_fs_destroy(beside.disk);
}

static void opening_check_reader(omendb *reader)
{
    uint64_t digest = 0, expected = 1;
    CHECK_EQ_INT(support_digest(reader, NULL, &digest), OMENDB_OK);
    CHECK_EQ_INT(support_digest(beside.writer, NULL, &expected), OMENDB_OK);
    CHECK(digest == expected);
}

/* The reader shows what was published, whenever that was. at 0: not when it opens CURRENT. */
static void opening_open_beside(int at, int overtaken)
{
    omendb *reader = NULL;
    beside.opened = 0;
    beside.at = at;
    beside.overtaken = overtaken;
    CHECK_EQ_INT(opening_open(&beside.vfs, 1, 0, &reader), OMENDB_OK);
    CHECK((beside.opened >= at || at == 4) && !beside.overtaken);
    opening_check_reader(reader);
    /* The same while it refreshes. */
    opening_publish();
    beside.opened = 0;
    beside.overtaken = overtaken;
    CHECK_EQ_INT(omendb_refresh(reader), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(reader), OMENDB_OK);
    CHECK(!beside.overtaken);
    opening_check_reader(reader);
    CHECK_EQ_INT(omendb_close(reader), OMENDB_OK);
}

TEST(a_manifest_that_is_replaced_while_it_is_opened_is_read_anew)
{
    opening_begin_beside();
    for (int at = 0; at <= 4; at++)
        opening_open_beside(at, at == 0);
    opening_end_beside();
}

TEST(a_manifest_that_is_being_collected_is_waited_for_but_not_for_ever)
{
    opening_begin_beside();
    beside.busy = 3;
    CHECK(opening_is(&beside.vfs, 1, 0, OMENDB_OK, ""));
    beside.busy = 1000;
    CHECK(opening_is(&beside.vfs, 1, 0, OMENDB_BUSY,
                     "the manifest changes faster than it can be read"));
    opening_end_beside();
}

/* 1 where a child, which may not use the handle and gives up its copies of what is held, has come
 * and gone. */
static int opening_has_had_a_child(omendb *writer)
{
    int status = -1;
    const pid_t child = fork();
    if (child == 0)
        _exit(omendb_checkpoint(writer) == OMENDB_MISUSE ? 0 : 1);
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

/* What a process holds stays held when a child of it has ended: by a cursor alone, then by the
 * handle alone. */
TEST(a_child_that_ends_takes_no_lock_along)
{
    char path[4200];
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb *writer = NULL, *reader = NULL, *volatile_db = NULL;
    omendb_collection *written = NULL, *read = NULL;
    omendb_rows *rows = NULL;
    uint64_t id = 0, seen = 0;
    schema.dim = RUINS_DIM;
    options.threads = 0;
    snprintf(path, sizeof path, "%s", support_path("fork"));
    CHECK_EQ_INT(omendb_open(":memory:", &options, &volatile_db), OMENDB_OK);
    CHECK_EQ_INT(omendb_open(path, &options, &writer), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(writer, "a", &schema, &written), OMENDB_OK);
    ruins_put(written, 0, 30, 1);
    CHECK_EQ_INT(omendb_checkpoint(writer), OMENDB_OK);
    options.read_only = 1;
    CHECK_EQ_INT(omendb_open(path, &options, &reader), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(reader, "a", NULL, &read), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(read, NULL, 0, 100, &rows), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(written, NULL, 7), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(writer, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(reader), OMENDB_OK);
    CHECK(opening_has_had_a_child(writer));
    CHECK_EQ_INT(omendb_purge(writer, NULL), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "holds MANIFEST-") != NULL);
    while (omendb_rows_next(rows, &id, OMENDB_F32, NULL) == OMENDB_OK)
        seen++;
    CHECK_EQ_INT(seen, 30);
    omendb_rows_close(rows);
    CHECK_EQ_INT(omendb_delete(written, NULL, 8), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(writer), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(reader), OMENDB_OK);
    CHECK(opening_has_had_a_child(writer));
    CHECK_EQ_INT(omendb_purge(writer, NULL), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "holds MANIFEST-") != NULL);
    omendb_collection_close(read);
    CHECK_EQ_INT(omendb_close(reader), OMENDB_OK);
    CHECK_EQ_INT(omendb_purge(writer, NULL), OMENDB_OK);
    omendb_collection_close(written);
    CHECK_EQ_INT(omendb_close(writer), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(volatile_db), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * what others do between the first look at the directory and the lock */

static struct opening_between {
    struct crash_fs *disk;
    const char *name; /* of a file that comes, or with "-" before it goes, after the first look */
    int looked;
} between;

static int opening_list(void *context, void *directory,
                        int (*each)(void *argument, const char *name), void *argument)
{
    const int code = between.disk->vfs.list(context, directory, each, argument);
    if (between.looked++ != 0)
        return code;
    if (between.name[0] == '-')
        ruins_must(between.disk->vfs.unlink(context, directory, between.name + 1));
    else
        crash_fs_add_file(between.disk, "/db", between.name, "letter", 6);
    return code;
}

/* 1 where opening says so, and leaves what came as it is. */
static int opening_between_is(struct crash_fs *disk, const char *name, uint32_t read_only,
                              int expected, const char *words)
{
    omendb_vfs vfs = disk->vfs;
    vfs.list = opening_list;
    between = (struct opening_between){disk, name, 0};
    const int right = opening_is(&vfs, read_only, 0, expected, words);
    const struct crash_entry *entry = crash_find(&disk->directories[0], name);
    const int stays = name[0] == '-' || (entry != NULL && disk->inodes[entry->inode].size == 6);
    crash_fs_destroy(disk);
    return right && stays;
}

TEST(what_came_before_the_lock_was_taken_is_refused_as_what_was_there)
{
    CHECK(opening_between_is(crash_fs_create(0), FORMAT_UNFINISHED_NAME, 0, OMENDB_FORMAT,
                             "a backup was not finished here"));
    CHECK(opening_between_is(crash_fs_create(0), "letter.txt", 0, OMENDB_FORMAT,
                             "other things than a database"));
    CHECK(opening_between_is(crash_fs_create(0), "seg-5", 0, OMENDB_CORRUPT,
                             "CURRENT is missing although there are segments"));
    CHECK(opening_between_is(ruins_of_all(), "-CURRENT", 0, OMENDB_CORRUPT,
                             "CURRENT is missing although there are segments"));
    CHECK(opening_between_is(ruins_of_all(), "-CURRENT", 1, OMENDB_CORRUPT,
                             "CURRENT is missing although there are segments"));
}

/* ------------------------------------------------------------------------------------------------
 * a full disk, and one that tells less */

static int opening_full(void *context, void *file, uint64_t offset, const void *buffer, size_t size)
{
    (void)context;
    (void)file;
    (void)offset;
    (void)buffer;
    (void)size;
    errno = ENOSPC;
    return OMENDB_FULL;
}

static int opening_refuse_sync(void *context, void *file)
{
    (void)context;
    (void)file;
    errno = EIO;
    return OMENDB_IOERR;
}

static int opening_refuse_log(void *context, void *directory, const char *name, int flags,
                              void **file)
{
    if (strncmp(name, "wal-", 4) == 0 && flags == (OMENDB_OPEN_READ | OMENDB_OPEN_WRITE)) {
        *file = NULL;
        errno = EMFILE;
        return OMENDB_IOERR;
    }
    return beside.disk->vfs.open(context, directory, name, flags, file);
}

/* What was replayed is shown only once it is certain to stay. */
TEST(a_full_disk_does_not_keep_from_reading_but_a_log_that_cannot_be_synced_does)
{
    beside.disk = ruins_of_all();
    omendb_vfs vfs = beside.disk->vfs;
    omendb *db = NULL;
    uint64_t digest = 0;
    vfs.write = opening_full;
    CHECK_EQ_INT(opening_open(&vfs, 0, 0, &db), OMENDB_OK);
    CHECK_EQ_INT(support_digest(db, NULL, &digest), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_FULL);
    CHECK(digest == opening_digest(&beside.disk->vfs));
    vfs.open = opening_refuse_log;
    CHECK(opening_is(&vfs, 0, 0, OMENDB_IOERR, "wal-"));
    vfs.open = beside.disk->vfs.open;
    vfs.sync = opening_refuse_sync;
    CHECK(opening_is(&vfs, 0, 0, OMENDB_IOERR, "wal-"));
    crash_fs_destroy(beside.disk);
}

static int opening_unknown(void *context, void *directory, char *text, size_t capacity)
{
    (void)context;
    (void)directory;
    (void)text;
    (void)capacity;
    return OMENDB_UNSUPPORTED;
}

/* Locks alone keep two writers apart, and a backup finds out by what lies there. */
TEST(a_file_system_that_cannot_tell_directories_apart_is_served)
{
    struct crash_fs *disk = ruins_of_all();
    omendb_vfs vfs = disk->vfs;
    omendb *db = NULL;
    vfs.identity = opening_unknown;
    CHECK_EQ_INT(opening_open(&vfs, 0, 0, &db), OMENDB_OK);
    CHECK(opening_is(&vfs, 0, 0, OMENDB_BUSY, "open for writing elsewhere"));
    CHECK_EQ_INT(omendb_backup(db, "/db"), OMENDB_EXISTS);
    CHECK_EQ_INT(omendb_backup(db, "/backup"), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(disk);
}

TEST_MAIN(a_log_without_a_header_is_debris,
          a_log_of_a_later_version_is_refused_where_something_is_in_it,
          debris_that_cannot_be_read_is_an_error,
          a_directory_without_current_is_no_database_unless_a_log_holds_commits,
          logs_of_checkpoints_that_failed_are_followed_however_many,
          a_reader_that_goes_back_knows_two_collections_of_one_name_for_a_while,
          a_file_of_a_number_that_was_never_given_is_told,
          more_manifests_than_are_remembered_are_waited_for_all_together,
          a_manifest_that_is_replaced_while_it_is_opened_is_read_anew,
          a_manifest_that_is_being_collected_is_waited_for_but_not_for_ever,
          a_child_that_ends_takes_no_lock_along,
          what_came_before_the_lock_was_taken_is_refused_as_what_was_there,
          a_full_disk_does_not_keep_from_reading_but_a_log_that_cannot_be_synced_does,
          a_file_system_that_cannot_tell_directories_apart_is_served)
