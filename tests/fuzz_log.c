/* fuzz_log.c: the bytes of logs: read as they are in each way, then replayed into a database whose
 * manifest names the first of them.
 *
 * Choice: bit 0 opens for writing, bit 1 maps the files that recovery writes, bit 2
 * leaves the manifest without collections. */
#include "fuzz.h"
#include "fuzz_database.h"

static int fuzz_log_deliver(void *context, const struct wal_record *record)
{
    uint64_t *last = context;
    uint32_t sum = 0;
    for (uint32_t i = 0; i < record->size; i++)
        sum += record->payload[i];
    *last += sum;
    return OMENDB_OK;
}

static int fuzz_log_read(struct storage *storage, uint64_t number, int live, uint64_t final_length,
                         uint64_t *end)
{
    uint64_t sum = 0;
    struct wal_replay replay = {.number = number, .final_length = final_length};
    replay.live_reader = live;
    replay.may_sync = live;
    int code = fuzz_sane(wal_read(storage, &replay, fuzz_log_deliver, &sum));
    FUZZ_CHECK(code != OMENDB_OK || replay.end % FORMAT_RECORD_ALIGN == 0);
    *end = replay.end;
    return code;
}

/* What was read to its end must be readable up to there, and goes on from there with nothing. */
static void fuzz_log_read_all_ways(struct fuzz_disk *disk, uint64_t number)
{
    struct memory memory;
    struct storage storage;
    uint64_t end, again;
    memset(&storage, 0, sizeof storage);
    memory_init(&memory, &fuzz_allocator, 0);
    storage.vfs = &disk->vfs;
    storage.directory = disk;
    storage.memory = &memory;
    fuzz_log_read(&storage, number, 1, WAL_LENGTH_UNKNOWN, &end);
    if (fuzz_log_read(&storage, number, 0, WAL_LENGTH_UNKNOWN, &end) == OMENDB_OK) {
        FUZZ_CHECK(fuzz_log_read(&storage, number, 0, end, &again) == OMENDB_OK && again == end);
        struct wal_replay rest = {
            .number = number, .final_length = WAL_LENGTH_UNKNOWN, .start_offset = end};
        fuzz_sane(wal_read(&storage, &rest, fuzz_log_deliver, &again));
        FUZZ_CHECK(rest.end >= end);
    }
    FUZZ_CHECK(memory.used == 0);
}

/* Writes the manifest that leads to log `number`. empty: it has no collections; else it has those
 * of the busy base that this one's log goes on with. */
static void fuzz_log_write_manifest(struct fuzz_disk *disk, uint64_t number, uint64_t commit,
                                    int empty)
{
    struct memory memory;
    struct storage storage;
    struct manifest_collection collections[2];
    memset(&storage, 0, sizeof storage);
    memset(collections, 0, sizeof collections);
    memory_init(&memory, &fuzz_allocator, 0);
    storage.vfs = &disk->vfs;
    storage.directory = disk;
    storage.memory = &memory;
    for (uint32_t i = 0; i < 2; i++) {
        collections[i].id = i + 1;
        collections[i].name[0] = (char)('a' + i);
        collections[i].schema = (omendb_schema)OMENDB_SCHEMA_INIT;
        collections[i].schema.dim = i == 0 ? 3 : 5;
        collections[i].schema.scalar = i == 0 ? OMENDB_F32 : OMENDB_I8;
        collections[i].schema.scale = 1.0f;
        collections[i].schema.M = 2;
        collections[i].schema.ef_construction = 8;
        collections[i].schema.ef = 4;
    }
    const struct manifest manifest = {.number = 300,
                                      .commit = commit & UINT32_MAX,
                                      .wal_number = number,
                                      .next_file = 301,
                                      .next_collection = empty ? 1 : 3,
                                      .collection_count = empty ? 0 : 2,
                                      .collections = collections};
    fuzz_must(manifest_write(&storage, &manifest));
}

/* That two records have one key, a log with right checksums can say, and is believed. */
static void fuzz_log_problem(void *context, const char *line)
{
    *(uint64_t *)context += strstr(line, "does not lead to it") == NULL;
}

static int fuzz_log_replay(struct fuzz_disk *disk, uint32_t io, uint32_t read_only)
{
    omendb *db = NULL;
    int code = fuzz_sane(fuzz_open(disk, io, read_only, &db));
    if (code != OMENDB_OK)
        return code;
    fuzz_ask(db, !read_only);
    uint64_t problems = 0;
    if (read_only)
        fuzz_sane(omendb_refresh(db));
    else
        fuzz_sane(omendb_check(db, fuzz_log_problem, &problems, NULL));
    FUZZ_CHECK(problems == 0);
    fuzz_sane(omendb_close(db));
    return code;
}

static int fuzz_log_run(const uint8_t *data, size_t size)
{
    struct fuzz_files files;
    struct fuzz_disk disk;
    uint64_t number = 0, commit = 0;
    int code = OMENDB_NOTFOUND;
    fuzz_unpack(data, size, &files);
    for (size_t i = 0; i < files.count; i++) {
        const struct fuzz_file *file = &files.file[i];
        if (file->kind != FUZZ_WAL || (number != 0 && file->number >= number))
            continue;
        number = file->number;
        commit = file->size < FORMAT_HEADER_BYTES
                     ? 0
                     : format_get64(file->bytes + FORMAT_WAL_FIRST_SEQUENCE) - 1;
    }
    fuzz_disk_of_files(&disk, &files);
    for (size_t i = 0; i < files.count; i++)
        if (files.file[i].kind == FUZZ_WAL)
            fuzz_log_read_all_ways(&disk, files.file[i].number);
    fuzz_files_end(&files);
    struct fuzz_inode *current = fuzz_find(&disk, "CURRENT");
    if (number != 0 && current == NULL) {
        fuzz_log_write_manifest(&disk, number, commit, (files.choice & 4) != 0);
        code = fuzz_log_replay(&disk, files.choice & 2 ? OMENDB_IO_MAP : OMENDB_IO_PREAD, 1);
        if (code == OMENDB_OK && (files.choice & 1) != 0)
            code = fuzz_log_replay(&disk, files.choice & 2 ? OMENDB_IO_MAP : OMENDB_IO_PREAD, 0);
    }
    fuzz_disk_end(&disk);
    return code == OMENDB_OK;
}

static void fuzz_log_seed(struct fuzz_seeds *seeds)
{
    struct fuzz_disk disk;
    omendb *db = NULL;
    fuzz_seed_bases(seeds, 1u << FUZZ_WAL, 0);
    fuzz_seed_bases(seeds, 1u << FUZZ_WAL, 4);
    /* Logs whose first commits are of the collection that the manifest has. */
    fuzz_disk_begin(&disk);
    fuzz_log_write_manifest(&disk, 0, 0, 0);
    fuzz_must(fuzz_open(&disk, OMENDB_IO_MAP, 0, &db));
    omendb_collection *collection = NULL;
    fuzz_must(omendb_collection_open(db, "a", NULL, &collection));
    fuzz_fill(collection, 3, 0, 30, 7);
    fuzz_fill(collection, 3, 10, 6, 1);
    fuzz_must(omendb_delete(collection, NULL, 12));
    fuzz_fill_documents(collection, NULL, 8, 9, 100);
    fuzz_must(omendb_update(collection, NULL, 9, "{\"n\":null,\"new\":1}"));
    fuzz_must(omendb_delete_key(collection, NULL, "8-0"));
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"waits", "done", "undone"};
        omendb_txn *txn = NULL;
        fuzz_must(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn));
        fuzz_must(omendb_delete(collection, txn, 20 + (uint64_t)i));
        fuzz_fill_documents(collection, txn, 50 + 4 * (uint64_t)i, 3, 400 + (uint64_t)i);
        fuzz_must(omendb_txn_prepare(txn, names[i]));
    }
    fuzz_must(omendb_commit_prepared(db, "done"));
    fuzz_must(omendb_rollback_prepared(db, "undone"));
    struct fuzz_files files;
    fuzz_files_of_disk(&files, &disk, 1u << FUZZ_WAL);
    for (size_t i = 0; i < files.count; i++)
        files.file[i].number = (uint8_t)(1 + i);
    for (unsigned choice = 0; choice < 4; choice++) {
        files.choice = (uint8_t)choice;
        fuzz_add_seed_of_files(seeds, &files);
    }
    fuzz_files_end(&files);
    omendb_collection_close(collection);
    fuzz_must(omendb_close(db));
    fuzz_disk_end(&disk);
}

FUZZ_TARGET(log, fuzz_mutate_files)
