/* test_damage.c: each byte of a small database is flipped, as a whole and in one bit, each file is
 * cut at each length, blocks and files are swapped, files are missing. No byte and no length is
 * left out, padding included; the summary counts them.
 *
 * The damaged database is opened, checked, and read in every way. Then must hold: nothing crashes;
 * an answer that is given is the right one; otherwise there is an error that says damage. The one
 * exception is the documented one: damage in the last record of the log cannot be told from a torn
 * tail, and a log that was cut is shorter; then the state is that of an earlier commit.
 *
 * Each damage is tried with mapped files or with OMENDB_IO_PREAD in turn (the next byte gets the
 * other one). */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1

#include "crash_vfs.h"
#include "parallel.h"
#include "support.h"
#include "test.h"

#define DAMAGE_DIM    3
#define DAMAGE_STATES 16
#define DAMAGE_BLOCK  16384
#define DAMAGE_CHUNK  4096

/* What is asked of an undamaged database, and of a damaged one. */
struct damage_answers {
    uint64_t digest;
    uint64_t ids[3][5];
    size_t counts[3];
};

struct damage_counts {
    uint64_t tried, refused, silent, reported;
};

struct damage_world {
    struct crash_fs *fs;
    uint64_t states[DAMAGE_STATES]; /* digests after the commits since the last checkpoint */
    size_t state_count;
    struct damage_answers answers;
    struct damage_counts counts;
};

static int damage_open(struct crash_fs *fs, uint32_t io, omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.vfs = &fs->vfs;
    options.threads = 0;
    options.wal_limit = 2048;
    options.tail_limit = 4096;
    options.io = io;
    return omendb_open("/db", &options, db);
}

static void damage_put(omendb_collection *collection, uint64_t first, uint64_t count)
{
    float vectors[64 * DAMAGE_DIM];
    char keys[64][16];
    omendb_record records[64];
    for (uint64_t i = 0; i < count; i++) {
        support_vector(first * 100 + i, DAMAGE_DIM, vectors + i * DAMAGE_DIM);
        snprintf(keys[i], sizeof keys[i], "%llu", (unsigned long long)(first + i));
        records[i] = (omendb_record)OMENDB_RECORD_INIT;
        records[i].id = first + i;
        records[i].vector = vectors + i * DAMAGE_DIM;
        records[i].key = i % 4 == 3 ? NULL : keys[i];
        records[i].metadata = i % 3 == 0 ? NULL : "{\"n\":1,\"s\":\"text\"}";
    }
    support_must(omendb_put_records(collection, NULL, (size_t)count, records, NULL));
}

/* Answers of the first collection; an error is passed on. */
static int damage_ask(omendb *db, struct damage_answers *answers)
{
    float vector[DAMAGE_DIM], distances[5];
    omendb_collection *collection = NULL;
    omendb_query query = OMENDB_QUERY_INIT;
    int status = support_digest(db, NULL, &answers->digest);
    if (status == OMENDB_OK)
        status = omendb_collection_open(db, "a", NULL, &collection);
    query.k = 5;
    for (size_t i = 0; i < 3 && status == OMENDB_OK; i++) {
        support_vector(i + 7, DAMAGE_DIM, vector);
        query.vector = i == 2 ? NULL : vector;
        query.id = 12;
        query.exact = i == 1;
        status = omendb_search(collection, NULL, &query, answers->ids[i], distances,
                               &answers->counts[i]);
    }
    omendb_collection_close(collection);
    return status;
}

/* Two segments, tombstones, and a log that a process left behind. */
static void damage_prepare(struct damage_world *world)
{
    struct crash_fs *fs = crash_fs_create(0);
    omendb *db = NULL;
    omendb_collection *a = NULL, *b = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    memset(world, 0, sizeof *world);
    schema.dim = DAMAGE_DIM;
    schema.M = 2;
    schema.ef_construction = 8;
    support_must(damage_open(fs, OMENDB_IO_MAP, &db));
    support_must(omendb_collection_create(db, "a", &schema, &a));
    schema.scalar = OMENDB_I8;
    support_must(omendb_collection_create(db, "b", &schema, &b));
    damage_put(a, 0, 60);
    damage_put(b, 0, 9);
    support_must(omendb_optimize(db, NULL, NULL));
    damage_put(a, 50, 20);
    support_must(omendb_checkpoint(db));
    support_must(omendb_delete(a, NULL, 3));
    support_must(omendb_checkpoint(db));
    support_must(support_digest(db, NULL, &world->states[world->state_count++]));
    for (uint64_t i = 0; i < 4; i++) {
        damage_put(i % 2 ? b : a, 200 + i, 2);
        support_must(support_digest(db, NULL, &world->states[world->state_count++]));
    }
    support_must(omendb_delete(a, NULL, 4));
    support_must(support_digest(db, NULL, &world->states[world->state_count++]));
    world->fs = crash_fs_copy(fs);
    omendb_collection_close(a);
    omendb_collection_close(b);
    support_must(omendb_close(db));
    crash_fs_destroy(fs);
    struct crash_fs *copy = crash_fs_copy(world->fs);
    support_must(damage_open(copy, OMENDB_IO_MAP, &db));
    support_must(damage_ask(db, &world->answers));
    support_must(omendb_close(db));
    crash_fs_destroy(copy);
}

/* A copy of the undamaged disk that shares its bytes until they are changed. */
static struct crash_fs *damage_disk(const struct damage_world *world)
{
    return crash_fs_copy_or_borrow(world->fs, 1);
}

/* Which of the states since the checkpoint this is; SIZE_MAX: none. */
static size_t damage_state(const struct damage_world *world, uint64_t digest)
{
    for (size_t i = 0; i < world->state_count; i++)
        if (world->states[i] == digest)
            return i;
    return SIZE_MAX;
}

static void damage_count_problem(void *context, const char *line)
{
    (void)line;
    ++*(uint64_t *)context;
}

static int damage_code_is_right(int status)
{
    return status == OMENDB_CORRUPT || status == OMENDB_FORMAT || status == OMENDB_IOERR;
}

/* Compares what is read with what is right. `oldest`: the oldest state allowed. */
static int damage_compare(struct damage_world *world, omendb *db, size_t oldest)
{
    struct damage_answers answers;
    memset(&answers, 0, sizeof answers);
    const int status = damage_ask(db, &answers);
    if (status != OMENDB_OK) {
        world->counts.refused++;
        if (damage_code_is_right(status) && omendb_errmsg()[0] != '\0')
            return 1;
        fprintf(stderr, "    reading: %s: %s\n", omendb_strerror(status), omendb_errmsg());
        return 0;
    }
    const size_t state = damage_state(world, answers.digest);
    world->counts.silent++;
    if (state == SIZE_MAX || state < oldest) {
        fprintf(stderr, "    a wrong state is read without an error (%zd)\n", (ssize_t)state);
        return 0;
    }
    if (state + 1 < world->state_count)
        return 1;
    for (size_t i = 0; i < 3; i++)
        if (answers.counts[i] != world->answers.counts[i] ||
            memcmp(answers.ids[i], world->answers.ids[i], answers.counts[i] * 8) != 0) {
            fprintf(stderr, "    search %zu gives another answer without an error\n", i);
            return 0;
        }
    return 1;
}

/* Opens the damaged disk, frees it. 1: all is as it must be. */
static int damage_try(struct damage_world *world, struct crash_fs *disk, size_t oldest)
{
    omendb *db = NULL;
    uint64_t problems = 0;
    int good = 1;
    const int status =
        damage_open(disk, world->counts.tried++ % 2 ? OMENDB_IO_PREAD : OMENDB_IO_MAP, &db);
    if (status != OMENDB_OK) {
        world->counts.refused++;
        good = damage_code_is_right(status) && omendb_errmsg()[0] != '\0';
        if (!good)
            fprintf(stderr, "    opening: %s: %s\n", omendb_strerror(status), omendb_errmsg());
    } else {
        const int checked = omendb_check(db, damage_count_problem, &problems, NULL);
        world->counts.reported += problems != 0;
        if (checked != OMENDB_OK && checked != OMENDB_IOERR) {
            fprintf(stderr, "    check: %s: %s\n", omendb_strerror(checked), omendb_errmsg());
            good = 0;
        }
        good = good && damage_compare(world, db, oldest);
    }
    omendb_close(db);
    crash_fs_destroy(disk);
    return good;
}

static int damage_is_log(const struct crash_entry *entry)
{
    return strncmp(entry->name, "wal-", 4) == 0;
}

/* The inode behind a name in a copy of the disk. */
static struct crash_inode *damage_inode(struct crash_fs *disk, const char *name)
{
    struct crash_inode *inode = &disk->inodes[crash_find(&disk->directories[0], name)->inode];
    crash_own(inode);
    return inode;
}

static int damage_bad(const char *name, const char *what, uint64_t at)
{
    fprintf(stderr, "FAILED: %s, %s %llu\n", name, what, (unsigned long long)at);
    return 1;
}

static void damage_print(const struct damage_world *world, const char *what)
{
    printf("  %-8s %7llu tried: %llu refused, %llu unaffected or cut, check reported %llu\n", what,
           (unsigned long long)world->counts.tried, (unsigned long long)world->counts.refused,
           (unsigned long long)world->counts.silent, (unsigned long long)world->counts.reported);
}

/* Shards are runs of DAMAGE_CHUNK positions in the files, one file after the other. */
struct damage_orders {
    struct damage_world *world;
    int (*try_one)(struct damage_world *world, const struct crash_entry *entry, uint64_t at);
};

static uint64_t damage_chunks(const struct damage_world *world, size_t file)
{
    const struct crash_entry *entry = &world->fs->directories[0].entries[file];
    return (world->fs->inodes[entry->inode].size + DAMAGE_CHUNK - 1) / DAMAGE_CHUNK;
}

/* On a build that is slow only each step-th position is tried. */
static uint64_t damage_step(void)
{
    return support_scale() >= 1.0 ? 1 : (uint64_t)(1.0 / support_scale());
}

static int damage_shard(uint64_t shard, void *result, const void *argument)
{
    const struct damage_orders *orders = argument;
    struct damage_world *world = orders->world;
    const struct crash_directory *directory = &world->fs->directories[0];
    size_t file = 0;
    int bad = 0;
    for (; shard >= damage_chunks(world, file); file++)
        shard -= damage_chunks(world, file);
    const struct crash_entry *entry = &directory->entries[file];
    const uint64_t size = world->fs->inodes[entry->inode].size;
    const uint64_t end = (shard + 1) * DAMAGE_CHUNK < size ? (shard + 1) * DAMAGE_CHUNK : size;
    memset(&world->counts, 0, sizeof world->counts);
    for (uint64_t at = shard * DAMAGE_CHUNK; at < end && bad == 0; at += damage_step())
        bad += orders->try_one(world, entry, at);
    memcpy(result, &world->counts, sizeof world->counts);
    return bad;
}

/* Every position of every file. Returns the failures. */
static int damage_everywhere(struct damage_world *world, const char *what,
                             int (*try_one)(struct damage_world *, const struct crash_entry *,
                                            uint64_t))
{
    const struct damage_orders orders = {world, try_one};
    uint64_t shards = 0, bytes = 0;
    for (size_t i = 0; i < world->fs->directories[0].count; i++) {
        shards += damage_chunks(world, i);
        bytes += world->fs->inodes[world->fs->directories[0].entries[i].inode].size;
    }
    struct damage_counts *counts = parallel_memory(shards * sizeof *counts);
    const int bad = parallel_run(shards, 1, damage_shard, sizeof *counts, counts, &orders);
    memset(&world->counts, 0, sizeof world->counts);
    for (uint64_t i = 0; i < shards; i++) {
        world->counts.tried += counts[i].tried;
        world->counts.refused += counts[i].refused;
        world->counts.silent += counts[i].silent;
        world->counts.reported += counts[i].reported;
    }
    munmap(counts, shards * sizeof *counts);
    printf("  %llu bytes in %zu files\n", (unsigned long long)bytes,
           world->fs->directories[0].count);
    damage_print(world, what);
    return bad;
}

static int damage_flip(struct damage_world *world, const struct crash_entry *entry, uint64_t at)
{
    const size_t last = world->state_count - 1;
    const uint8_t masks[2] = {0xff, (uint8_t)(1u << (at % 8))};
    for (int i = 0; i < 2; i++) {
        struct crash_fs *disk = damage_disk(world);
        damage_inode(disk, entry->name)->data[at] ^= masks[i];
        if (!damage_try(world, disk, damage_is_log(entry) ? last - 1 : last))
            return damage_bad(entry->name, "flipped byte", at);
    }
    return 0;
}

TEST(a_flipped_byte_is_an_error_or_of_no_effect)
{
    static struct damage_world world;
    damage_prepare(&world);
    const int bad = damage_everywhere(&world, "flipped", damage_flip);
    crash_fs_destroy(world.fs);
    CHECK_EQ_INT(bad, 0);
}

static int damage_cut(struct damage_world *world, const struct crash_entry *entry, uint64_t size)
{
    struct crash_fs *disk = damage_disk(world);
    damage_inode(disk, entry->name)->size = size;
    if (damage_try(world, disk, damage_is_log(entry) ? 0 : world->state_count - 1))
        return 0;
    return damage_bad(entry->name, "cut at", size);
}

TEST(a_file_cut_at_any_length_is_an_error_or_of_no_effect)
{
    static struct damage_world world;
    damage_prepare(&world);
    const int bad = damage_everywhere(&world, "cut", damage_cut);
    crash_fs_destroy(world.fs);
    CHECK_EQ_INT(bad, 0);
}

TEST(a_missing_file_is_an_error_or_of_no_effect)
{
    static struct damage_world world;
    int bad = 0;
    damage_prepare(&world);
    for (size_t i = 0; i < world.fs->directories[0].count; i++) {
        const char *name = world.fs->directories[0].entries[i].name;
        struct crash_fs *disk = damage_disk(&world);
        crash_unlink_entry(disk, &disk->directories[0], crash_find(&disk->directories[0], name));
        if (!damage_try(&world, disk, world.state_count - 1))
            bad += damage_bad(name, "missing", 0);
    }
    damage_print(&world, "missing");
    crash_fs_destroy(world.fs);
    CHECK_EQ_INT(bad, 0);
}

/* Swaps two blocks of one file, or of two. */
static int damage_swap_blocks(struct damage_world *world, const char *one, uint64_t one_at,
                              const char *other, uint64_t other_at)
{
    static uint8_t kept[DAMAGE_BLOCK];
    struct crash_fs *disk = damage_disk(world);
    struct crash_inode *a = damage_inode(disk, one), *b = damage_inode(disk, other);
    if (one_at + DAMAGE_BLOCK > a->size || other_at + DAMAGE_BLOCK > b->size) {
        crash_fs_destroy(disk);
        return 1;
    }
    memcpy(kept, a->data + one_at, DAMAGE_BLOCK);
    memcpy(a->data + one_at, b->data + other_at, DAMAGE_BLOCK);
    memcpy(b->data + other_at, kept, DAMAGE_BLOCK);
    return damage_try(world, disk, world->state_count - 1);
}

TEST(swapped_files_and_blocks_are_an_error)
{
    static struct damage_world world;
    int bad = 0;
    damage_prepare(&world);
    const struct crash_directory *directory = &world.fs->directories[0];
    for (size_t i = 0; i < directory->count; i++)
        for (size_t j = 0; j < i; j++) {
            const char *one = directory->entries[i].name, *other = directory->entries[j].name;
            struct crash_fs *disk = damage_disk(&world);
            struct crash_entry *a = crash_find(&disk->directories[0], one);
            struct crash_entry *b = crash_find(&disk->directories[0], other);
            const uint32_t inode = a->inode;
            a->inode = b->inode;
            b->inode = inode;
            if (!damage_try(&world, disk, world.state_count - 1))
                bad += damage_bad(one, "swapped with file", j);
            if (!damage_swap_blocks(&world, one, 0, other, 0))
                bad += damage_bad(one, "first block swapped with that of file", j);
        }
    damage_print(&world, "swapped");
    crash_fs_destroy(world.fs);
    CHECK_EQ_INT(bad, 0);
}

TEST(random_bytes_in_any_place_do_not_crash)
{
    static struct damage_world world;
    struct support_random random = {support_seed(1)};
    const uint64_t rounds = support_scaled(2000, 100);
    int bad = 0;
    damage_prepare(&world);
    for (uint64_t i = 0; i < rounds && bad < 3; i++) {
        struct crash_fs *disk = damage_disk(&world);
        const size_t file = (size_t)support_below(&random, disk->directories[0].count);
        const struct crash_entry *entry = &disk->directories[0].entries[file];
        struct crash_inode *inode = damage_inode(disk, entry->name);
        uint64_t count = 1 + support_below(&random, 200);
        const uint64_t at = inode->size == 0 ? 0 : support_below(&random, inode->size);
        for (; count > 0 && at + count <= inode->size; count--)
            inode->data[at + count - 1] = (uint8_t)support_next(&random);
        char name[CRASH_NAME];
        memcpy(name, entry->name, sizeof name);
        if (!damage_try(&world, disk, strncmp(name, "wal-", 4) == 0 ? 0 : world.state_count - 1))
            bad += damage_bad(name, "random bytes, round", i);
    }
    damage_print(&world, "random");
    crash_fs_destroy(world.fs);
    CHECK_EQ_INT(bad, 0);
}

/* ------------------------------------------------------------------------------------------------
 * what check says */

struct damage_lines {
    uint64_t count;
    char last[1024];
};

static void damage_note_line(void *context, const char *line)
{
    struct damage_lines *lines = context;
    lines->count++;
    snprintf(lines->last, sizeof lines->last, "%s", line);
}

#define DAMAGE_TOLD_ROWS 400
#define DAMAGE_TOLD_DIM  32

/* With the default limits: nothing is checkpointed before it is asked for. */
static omendb *damage_open_told(struct crash_fs *fs, uint32_t io)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb *db = NULL;
    options.vfs = &fs->vfs;
    options.threads = 0;
    options.io = io;
    support_must(omendb_open("/db", &options, &db));
    return db;
}

/* One file with a part of each of two collections that takes several blocks. */
static omendb *damage_begin_told(struct crash_fs *fs, uint32_t io)
{
    static float vectors[DAMAGE_TOLD_ROWS * DAMAGE_TOLD_DIM];
    omendb *db = damage_open_told(fs, io);
    for (uint64_t i = 0; i < DAMAGE_TOLD_ROWS; i++)
        support_vector(i, DAMAGE_TOLD_DIM, vectors + i * DAMAGE_TOLD_DIM);
    for (int i = 0; i < 2; i++) {
        omendb_schema schema = OMENDB_SCHEMA_INIT;
        omendb_collection *made = NULL;
        schema.dim = DAMAGE_TOLD_DIM;
        support_must(omendb_collection_create(db, i == 0 ? "a" : "b", &schema, &made));
        support_must(
            omendb_add_batch(made, NULL, DAMAGE_TOLD_ROWS, NULL, vectors, OMENDB_F32, NULL));
        omendb_collection_close(made);
    }
    support_must(omendb_checkpoint(db));
    return db;
}

static struct crash_entry *damage_only(struct crash_fs *fs, const char *prefix)
{
    struct crash_entry *found = NULL;
    for (size_t i = 0; i < fs->directories[0].count; i++) {
        struct crash_entry *entry = &fs->directories[0].entries[i];
        if (strncmp(entry->name, prefix, strlen(prefix)) == 0)
            found = entry;
    }
    return found;
}

/* One line for the damaged block: 1, 2 where it names collection "a" or "b", 3 both; 0: wrong. */
static int damage_told(omendb *db, const char *file, uint64_t block)
{
    static const char *const whose[] = {
        "collection \"a\": ", "collection \"b\": ", "collections \"a\", \"b\": "};
    struct damage_lines lines = {0};
    uint64_t problems = 0;
    char where[96];
    snprintf(where, sizeof where, "%s: block %llu (offset %llu): checksum", file,
             (unsigned long long)block, (unsigned long long)block * DAMAGE_BLOCK);
    const int status = omendb_check(db, damage_note_line, &lines, &problems);
    if (status == OMENDB_OK && lines.count == 1 && problems == 1) {
        for (int i = 0; i < 3; i++) {
            const size_t length = strlen(whose[i]);
            if (strncmp(lines.last, whose[i], length) == 0 &&
                strncmp(lines.last + length, where, strlen(where)) == 0)
                return i + 1;
        }
    }
    fprintf(stderr, "    block %llu: %s, %llu lines: %s\n", (unsigned long long)block,
            omendb_strerror(status), (unsigned long long)lines.count, lines.last);
    return 0;
}

/* The blocks of "a" come first, one has the end of "a" and the beginning of "b". */
TEST(a_damaged_block_is_told_once_and_of_whom_it_is)
{
    for (uint32_t io = OMENDB_IO_MAP; io <= OMENDB_IO_PREAD; io++) {
        struct crash_fs *fs = crash_fs_create(0);
        support_must(omendb_close(damage_begin_told(fs, io)));
        const struct crash_entry entry = *damage_only(fs, "seg-");
        const uint64_t blocks = fs->inodes[entry.inode].size / DAMAGE_BLOCK;
        uint64_t of[4] = {0};
        int before = 1;
        CHECK(blocks > 6);
        for (uint64_t block = 0; block < blocks; block++) {
            struct crash_fs *disk = crash_fs_copy(fs);
            disk->inodes[damage_only(disk, "seg-")->inode].data[block * DAMAGE_BLOCK + 100] ^= 1;
            omendb *db = damage_open_told(disk, io);
            const int told = damage_told(db, entry.name, block);
            CHECK(told != 0 && (told != 1 || before == 1) && (told != 3 || before == 1));
            before = told == 3 ? 2 : told;
            of[told]++;
            CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
            crash_fs_destroy(disk);
        }
        CHECK(of[1] > 2 && of[2] > 2 && of[3] <= 1);
        crash_fs_destroy(fs);
    }
}

TEST(a_damaged_overlay_is_told_once_and_of_whom_it_is)
{
    struct crash_fs *fs = crash_fs_create(0);
    omendb *db = damage_begin_told(fs, OMENDB_IO_PREAD);
    omendb_collection *b = NULL;
    CHECK_EQ_INT(omendb_collection_open(db, "b", NULL, &b), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(b, NULL, 3), OMENDB_OK);
    omendb_collection_close(b);
    CHECK_EQ_INT(omendb_checkpoint(db), OMENDB_OK);
    const struct crash_entry entry = *damage_only(fs, "ovl-");
    fs->inodes[entry.inode].data[100] ^= 1;
    CHECK_EQ_INT(damage_told(db, entry.name, 0), 2);
    fs->inodes[entry.inode].data[100] ^= 1;
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(fs);
}

/* In one block there are more collections than a line can name. */
TEST(a_damaged_block_of_many_collections_is_told_once)
{
    struct crash_fs *fs = crash_fs_create(0);
    struct damage_lines lines = {0};
    uint64_t problems = 0;
    omendb *db = damage_open_told(fs, OMENDB_IO_PREAD);
    for (int i = 0; i < 9; i++) {
        char name[256];
        omendb_schema schema = OMENDB_SCHEMA_INIT;
        omendb_collection *made = NULL;
        schema.dim = DAMAGE_DIM;
        memset(name, 'a' + i, sizeof name - 1);
        name[sizeof name - 1] = 0;
        support_must(omendb_collection_create(db, name, &schema, &made));
        support_must(support_put(made, NULL, 1, 1, DAMAGE_DIM));
        omendb_collection_close(made);
    }
    support_must(omendb_checkpoint(db));
    const struct crash_entry entry = *damage_only(fs, "seg-");
    fs->inodes[entry.inode].data[200] ^= 1;
    CHECK_EQ_INT(omendb_check(db, damage_note_line, &lines, &problems), OMENDB_OK);
    CHECK_EQ_INT(lines.count, 1);
    CHECK_EQ_INT(problems, 1);
    CHECK(strncmp(lines.last, "collections \"aaaa", 17) == 0);
    CHECK(strstr(lines.last, " and 7 more: seg-") != NULL);
    CHECK(strstr(lines.last, "block 0 (offset 0): checksum") != NULL);
    fs->inodes[entry.inode].data[200] ^= 1;
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(fs);
}

TEST_MAIN(a_flipped_byte_is_an_error_or_of_no_effect,
          a_file_cut_at_any_length_is_an_error_or_of_no_effect,
          a_missing_file_is_an_error_or_of_no_effect, swapped_files_and_blocks_are_an_error,
          random_bytes_in_any_place_do_not_crash, a_damaged_block_is_told_once_and_of_whom_it_is,
          a_damaged_overlay_is_told_once_and_of_whom_it_is,
          a_damaged_block_of_many_collections_is_told_once)
