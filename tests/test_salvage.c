/* test_salvage.c: what is lost of a damaged database is what was damaged, and no more.
 *
 * One database is made, in a file system in memory, with everything that can be damaged: segments
 * with graphs, deletions in overlays, and a log of a process that died. A model knows what it
 * holds, and from which bytes of which file each record comes. Then copies of it are damaged,
 * salvaged, and what the new database holds is compared with the model, record by record. */
#include "internals.h"

#include "crash_vfs.h"
#include "support.h"
#include "test.h"

#include <time.h>

#define WORLD_DIM         32
#define WORLD_COLLECTIONS 4
#define WORLD_IDS         1000

/* "plain" has the ids 0, 1, 2 ...; "gaps" only multiples of 3, ascending; "loose" has them in
 * another order than that of its rows; "late" is only in the log, and of bytes. */
static const char *const world_names[WORLD_COLLECTIONS] = {"plain", "gaps", "loose", "late"};
enum { WORLD_PLAIN, WORLD_GAPS, WORLD_LOOSE, WORLD_LATE };

/* One record that the database holds. */
struct world_record {
    int there;
    uint64_t value;        /* its vector */
    int logged;            /* the log has the last word about it */
    char file[CRASH_NAME]; /* else the segment */
    uint64_t vector, id;   /* places in that file */
    uint64_t data_end;
};

struct world {
    struct crash_fs *fs;
    struct world_record records[WORLD_COLLECTIONS][WORLD_IDS];
    omendb_salvage_result result;
    uint64_t named; /* lines that name the file that was damaged */
    char damaged[CRASH_NAME];
    uint64_t missing, back, wrong; /* of the last comparison */
    uint64_t saved;                /* records of the undamaged database */
};

static struct world world;

static void world_must(int status)
{
    if (status == OMENDB_OK)
        return;
    fprintf(stderr, "preparing: %s: %s\n", omendb_strerror(status), omendb_errmsg());
    exit(1);
}

static void world_options(struct crash_fs *fs, omendb_options *options)
{
    omendb_options_init(options);
    options->vfs = &fs->vfs;
    options->threads = 0;
}

/* Puts records [first, end) of the ids that the collection has. */
static void world_put(omendb_collection *collection, int which, uint64_t first, uint64_t end,
                      uint64_t round, int logged)
{
    static float vectors[WORLD_IDS * WORLD_DIM];
    uint64_t ids[WORLD_IDS], count = 0;
    for (uint64_t i = first; i < end; i++) {
        const uint64_t id = which == WORLD_LOOSE  ? (i * 617) % WORLD_IDS
                            : which == WORLD_GAPS ? i * 3
                                                  : i;
        struct world_record *record = &world.records[which][id];
        record->there = 1;
        record->value = round * 100000 + (uint64_t)which * 10000 + id;
        record->logged = logged;
        support_vector(record->value, WORLD_DIM, vectors + count * WORLD_DIM);
        ids[count++] = id;
    }
    world_must(omendb_put_batch(collection, NULL, (size_t)count, ids, vectors, OMENDB_F32, NULL));
}

static void world_delete(omendb_collection *collection, int which, uint64_t first, uint64_t end,
                         uint64_t step, int logged)
{
    for (uint64_t id = first; id < end; id += step) {
        world_must(omendb_delete(collection, NULL, id));
        world.records[which][id].there = 0;
        world.records[which][id].logged = logged;
    }
}

static int world_open_segment(struct crash_fs *fs, const char *name, struct segment_file **file,
                              struct storage *storage, struct memory *memory)
{
    enum storage_kind kind;
    uint64_t number;
    int sound;
    memory_init(memory, NULL, 0);
    memset(storage, 0, sizeof *storage);
    storage->vfs = &fs->vfs;
    storage->memory = memory;
    storage->io = BLOCKS_IO_CHECK;
    world_must(fs->vfs.open_directory(fs, "/db", 0, &storage->directory));
    if (!storage_parse_name(name, &kind, &number) ||
        (kind != STORAGE_SEGMENT && kind != STORAGE_OVERLAY))
        return 0;
    world_must(segment_file_salvage(storage, kind, number, 0, NULL, NULL, file, &sound));
    return 1;
}

static struct crash_inode *world_inode(struct crash_fs *disk, const char *name)
{
    return &disk->inodes[crash_find(&disk->directories[0], name)->inode];
}

/* Which collection of the model has this number: they were created in order, from 1. */
static void world_note_part(const struct segment_file *file, const char *name, uint32_t part)
{
    const struct part_info *info = &file->parts[part];
    const uint8_t *data = world_inode(world.fs, name)->data;
    const uint64_t ids = segment_section(file, part, SECTION_IDS).offset;
    const uint64_t vectors = segment_section(file, part, SECTION_VECTORS).offset;
    for (uint32_t row = 0; row < info->rows; row++) {
        uint64_t id;
        float vector[WORLD_DIM];
        memcpy(&id, data + ids + row * 8, 8);
        struct world_record *record = &world.records[info->collection - 1][id];
        support_vector(record->value, WORLD_DIM, vector);
        if (!record->there || record->logged ||
            memcmp(vector, data + vectors + row * info->vector_stride, sizeof vector) != 0)
            continue;
        snprintf(record->file, sizeof record->file, "%s", name);
        record->id = ids + row * 8;
        record->vector = vectors + row * info->vector_stride;
        record->data_end = file->blocks.size;
    }
}

static void world_note_places(void)
{
    for (size_t i = 0; i < world.fs->directories[0].count; i++) {
        const char *name = world.fs->directories[0].entries[i].name;
        struct segment_file *file = NULL;
        struct storage storage;
        struct memory memory;
        if (!world_open_segment(world.fs, name, &file, &storage, &memory))
            continue;
        for (uint32_t part = 0; file->kind == STORAGE_SEGMENT && part < file->part_count; part++)
            world_note_part(file, name, part);
        segment_file_close(file);
    }
}

static void world_prepare(void)
{
    omendb_options options;
    omendb *db = NULL;
    omendb_collection *all[WORLD_COLLECTIONS], *gone;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    if (world.fs != NULL)
        return;
    struct crash_fs *fs = crash_fs_create(0);
    world_options(fs, &options);
    schema.dim = WORLD_DIM;
    world_must(omendb_open("/db", &options, &db));
    for (int i = 0; i < WORLD_LATE; i++)
        world_must(omendb_collection_create(db, world_names[i], &schema, &all[i]));
    world_put(all[WORLD_PLAIN], WORLD_PLAIN, 0, 700, 1, 0);
    world_put(all[WORLD_GAPS], WORLD_GAPS, 0, 300, 1, 0);
    world_put(all[WORLD_LOOSE], WORLD_LOOSE, 0, 600, 1, 0);
    world_must(omendb_optimize(db, NULL, NULL));
    world_put(all[WORLD_PLAIN], WORLD_PLAIN, 690, 900, 2, 0);
    world_delete(all[WORLD_PLAIN], WORLD_PLAIN, 500, 680, 3, 0);
    world_must(omendb_checkpoint(db));
    /* From here on only the log has it. */
    schema.scalar = OMENDB_I8;
    world_must(omendb_collection_create(db, world_names[WORLD_LATE], &schema, &all[WORLD_LATE]));
    world_must(omendb_collection_create(db, "gone", &schema, &gone));
    omendb_collection_close(gone);
    for (uint64_t i = 0; i < 20; i++)
        world_put(all[WORLD_LATE], WORLD_LATE, i * 10, i * 10 + 10, 3, 1);
    world_put(all[WORLD_PLAIN], WORLD_PLAIN, 100, 120, 4, 1);
    world_delete(all[WORLD_PLAIN], WORLD_PLAIN, 130, 140, 1, 1);
    world_must(omendb_collection_drop(db, "gone"));
    world.fs = crash_fs_copy(fs);
    for (int i = 0; i < WORLD_COLLECTIONS; i++)
        omendb_collection_close(all[i]);
    world_must(omendb_close(db));
    crash_fs_destroy(fs);
    world_note_places();
    for (int which = 0; which < WORLD_COLLECTIONS; which++)
        for (uint64_t id = 0; id < WORLD_IDS; id++)
            world.saved += (uint64_t)world.records[which][id].there;
}

static void world_line(void *context, const char *line)
{
    if (getenv("OMENDB_TEST_TALK") != NULL)
        fprintf(stderr, "    %s\n", line);
    world.named += world.damaged[0] != '\0' && strstr(line, world.damaged) != NULL;
    ++*(uint64_t *)context;
}

/* 1 where the record survives whatever happened to the byte at `at` of the file. */
static int world_is_safe(const struct world_record *record, const char *file, uint64_t at)
{
    if (record->logged)
        return strncmp(file, "wal-", 4) != 0;
    if (strcmp(record->file, file) != 0)
        return 1;
    if (at >= record->data_end)
        return 0;
    const uint64_t block = at / BLOCK_BYTES;
    const uint64_t bytes = WORLD_DIM * sizeof(float);
    return record->id / BLOCK_BYTES != block && record->vector / BLOCK_BYTES != block &&
           (record->vector + bytes - 1) / BLOCK_BYTES != block;
}

static int world_open_saved(omendb *db, int which, omendb_collection **collection)
{
    char name[32];
    snprintf(name, sizeof name, "collection-%d", which + 1);
    return omendb_collection_open(db, world_names[which], NULL, collection) == OMENDB_OK ||
           omendb_collection_open(db, name, NULL, collection) == OMENDB_OK;
}

/* Counts what is missing although it is safe from damage at `at` of `file`, what is there although
 * it was deleted, and what has another vector than it had. missing: of what is not safe. */
static uint64_t world_compare(omendb *db, const char *file, uint64_t at)
{
    uint64_t bad = 0;
    world.missing = world.back = world.wrong = 0;
    for (int which = 0; which < WORLD_COLLECTIONS; which++) {
        omendb_collection *collection = NULL;
        const int has = world_open_saved(db, which, &collection);
        for (uint64_t id = 0; id < WORLD_IDS; id++) {
            const struct world_record *record = &world.records[which][id];
            float vector[WORLD_DIM], expected[WORLD_DIM];
            const int found =
                has && omendb_get(collection, NULL, id, OMENDB_F32, vector) == OMENDB_OK;
            support_vector(record->value, WORLD_DIM, expected);
            world.back += found && !record->there;
            if (!record->there)
                continue;
            const int safe = world_is_safe(record, file, at);
            const int right = found && memcmp(vector, expected, sizeof vector) == 0;
            world.missing += !found;
            world.wrong += found && !right;
            bad += safe && !right;
        }
        omendb_collection_close(collection);
    }
    return bad;
}

/* Salvages "/db" of the disk into "/new", looks at it in every way, frees the disk. Returns how
 * many records are not there, or not right, although the damage does not touch them; UINT64_MAX:
 * something else is wrong. */
static uint64_t world_salvage(struct crash_fs *disk, const char *file, uint64_t at)
{
    omendb_options options;
    omendb *db = NULL;
    uint64_t lines = 0, bad = UINT64_MAX, problems = 0;
    world_options(disk, &options);
    omendb_salvage_result_init(&world.result);
    snprintf(world.damaged, sizeof world.damaged, "%s", file);
    world.named = 0;
    int status = omendb_salvage("/db", "/new", &options, world_line, &lines, &world.result);
    if (status == OMENDB_OK)
        status = omendb_open("/new", &options, &db);
    if (status == OMENDB_OK)
        status = omendb_check(db, support_count_problem, &problems, NULL);
    if (status == OMENDB_OK && problems == 0 && lines == world.result.problems)
        bad = world_compare(db, file, at);
    omendb_stats stats = OMENDB_STATS_INIT;
    if (status == OMENDB_OK && omendb_get_stats(db, &stats) == OMENDB_OK &&
        (stats.records != world.result.records || stats.collections != world.result.collections)) {
        fprintf(stderr, "    %llu records in %llu collections, the result tells %llu in %llu\n",
                (unsigned long long)stats.records, (unsigned long long)stats.collections,
                (unsigned long long)world.result.records,
                (unsigned long long)world.result.collections);
        bad = UINT64_MAX;
    }
    if (status != OMENDB_OK)
        fprintf(stderr, "    %s: %s\n", omendb_strerror(status), omendb_errmsg());
    world_must(omendb_close(db));
    crash_fs_destroy(disk);
    return bad;
}

static struct crash_fs *world_flipped(const char *name, uint64_t at)
{
    struct crash_fs *disk = crash_fs_copy(world.fs);
    world_inode(disk, name)->data[at] ^= 0x55;
    return disk;
}

static void world_remove(struct crash_fs *disk, const char *name)
{
    crash_unlink_entry(disk, &disk->directories[0], crash_find(&disk->directories[0], name));
}

/* The only file whose name begins so, or the last one. */
static const char *world_file(const char *prefix)
{
    const char *found = "";
    for (size_t i = 0; i < world.fs->directories[0].count; i++)
        if (strncmp(world.fs->directories[0].entries[i].name, prefix, strlen(prefix)) == 0)
            found = world.fs->directories[0].entries[i].name;
    return found;
}

/* Where a section of the collection begins, in the file that has most of its rows. */
static uint64_t world_section(int which, enum section_type type, uint64_t *length, char *name)
{
    uint64_t place = 0;
    uint32_t most = 0;
    for (size_t i = 0; i < world.fs->directories[0].count; i++) {
        const char *at = world.fs->directories[0].entries[i].name;
        struct segment_file *file = NULL;
        struct storage storage;
        struct memory memory;
        if (strncmp(at, "seg-", 4) != 0 ||
            !world_open_segment(world.fs, at, &file, &storage, &memory))
            continue;
        for (uint32_t part = 0; part < file->part_count; part++)
            if (file->parts[part].collection == (uint64_t)which + 1 &&
                file->parts[part].rows > most) {
                most = file->parts[part].rows;
                place = segment_section(file, part, type).offset;
                *length = segment_section(file, part, type).length;
                snprintf(name, CRASH_NAME, "%s", at);
            }
        segment_file_close(file);
    }
    return place;
}

/* Records that are stored and not safe. */
static uint64_t world_touched(const char *file, uint64_t at)
{
    uint64_t count = 0;
    for (int which = 0; which < WORLD_COLLECTIONS; which++)
        for (uint64_t id = 0; id < WORLD_IDS; id++)
            count += world.records[which][id].there &&
                     !world_is_safe(&world.records[which][id], file, at);
    return count;
}

/* ------------------------------------------------------------------------------------------------
 */

TEST(an_undamaged_database_is_salvaged_whole)
{
    world_prepare();
    CHECK_EQ_INT(world_salvage(crash_fs_copy(world.fs), "", 0), 0);
    CHECK_EQ_INT(world.missing + world.back + world.wrong, 0);
    CHECK_EQ_INT(world.result.problems, 0);
    CHECK_EQ_INT(world.result.lost_rows + world.result.doubtful, 0);
    CHECK_EQ_INT(world.result.collections, WORLD_COLLECTIONS);
}

TEST(a_bad_block_of_vectors_costs_the_rows_in_it_and_no_others)
{
    char name[CRASH_NAME];
    uint64_t length = 0;
    world_prepare();
    const uint64_t place = world_section(WORLD_PLAIN, SECTION_VECTORS, &length, name);
    CHECK(length > 3 * BLOCK_BYTES);
    /* A block that holds nothing but vectors. */
    const uint64_t at = (place / BLOCK_BYTES + 2) * BLOCK_BYTES + 77;
    const uint64_t touched = world_touched(name, at);
    CHECK(touched >= BLOCK_BYTES / (WORLD_DIM * 4) - 21);
    CHECK_EQ_INT(world_salvage(world_flipped(name, at), name, at), 0);
    CHECK_EQ_INT(world.missing, touched);
    CHECK_EQ_INT(world.back + world.wrong, 0);
    CHECK(world.result.lost_rows >= touched);
    CHECK(world.named >= 2);
}

/* Each block of each segment, whatever is in it. */
TEST(each_bad_block_costs_at_most_what_has_bytes_in_it)
{
    world_prepare();
    for (size_t i = 0; i < world.fs->directories[0].count; i++) {
        const char *name = world.fs->directories[0].entries[i].name;
        const uint64_t size = world_inode(world.fs, name)->size;
        if (strncmp(name, "seg-", 4) != 0)
            continue;
        for (uint64_t at = 5; at + BLOCK_BYTES <= size; at += BLOCK_BYTES) {
            CHECK_EQ_INT(world_salvage(world_flipped(name, at), name, at), 0);
            CHECK(world.missing <= world_touched(name, at));
            CHECK_EQ_INT(world.back + world.wrong, 0);
        }
    }
}

/* A database of one collection of 10,000 rows, so that ids fill blocks of their own; flips a byte
 * of one that holds nothing else. Returns how many records are lost; UINT64_MAX: something else is
 * wrong. */
static uint64_t ids_lose_a_block(uint64_t factor, uint64_t step)
{
    enum { ROWS = 10000, DIM = 2 };
    static float vectors[ROWS * DIM];
    static uint64_t ids[ROWS];
    struct crash_fs *disk = crash_fs_create(0);
    omendb_options options;
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    uint64_t lines = 0, wrong = 0, missing = 0;
    schema.dim = DIM;
    schema.M = 2;
    schema.ef_construction = 8;
    world_options(disk, &options);
    for (uint64_t i = 0; i < ROWS; i++) {
        ids[i] = 500 + (i * factor) % ROWS * step;
        support_vector(ids[i], DIM, vectors + i * DIM);
    }
    world_must(omendb_open("/db", &options, &db));
    world_must(omendb_collection_create(db, "plain", &schema, &collection));
    world_must(omendb_put_batch(collection, NULL, ROWS, ids, vectors, OMENDB_F32, NULL));
    omendb_collection_close(collection);
    world_must(omendb_close(db));
    struct crash_fs *kept = world.fs;
    char name[CRASH_NAME];
    uint64_t length = 0;
    world.fs = disk;
    const uint64_t place = world_section(WORLD_PLAIN, SECTION_IDS, &length, name);
    world.fs = kept;
    world_inode(disk, name)->data[(place / BLOCK_BYTES + 2) * BLOCK_BYTES] ^= 1;
    world_must(omendb_salvage("/db", "/new", &options, world_line, &lines, NULL));
    world_must(omendb_open("/new", &options, &db));
    world_must(omendb_collection_open(db, "plain", NULL, &collection));
    for (uint64_t i = 0; i < ROWS; i++) {
        float vector[DIM];
        const int found = omendb_get(collection, NULL, ids[i], OMENDB_F32, vector) == OMENDB_OK;
        missing += !found;
        wrong += found && memcmp(vector, vectors + i * DIM, sizeof vector) != 0;
    }
    omendb_collection_close(collection);
    const int checked = support_check(db);
    world_must(omendb_close(db));
    crash_fs_destroy(disk);
    return wrong == 0 && checked == OMENDB_OK && lines >= 1 ? missing : UINT64_MAX;
}

TEST(ids_that_have_a_copy_or_follow_from_others_are_found_again)
{
    CHECK_EQ_INT(ids_lose_a_block(1, 1), 0);    /* 500, 501, 502: each follows */
    CHECK_EQ_INT(ids_lose_a_block(6151, 3), 0); /* in another order: there is a sorted copy */
    CHECK_EQ_INT(ids_lose_a_block(1, 3), BLOCK_BYTES / 8);
}

TEST(damaged_links_and_codes_cost_nothing)
{
    char name[CRASH_NAME];
    uint64_t length = 0;
    world_prepare();
    const uint64_t place = world_section(WORLD_PLAIN, SECTION_LINKS, &length, name);
    CHECK(length > 2 * BLOCK_BYTES);
    const uint64_t at = (place / BLOCK_BYTES + 1) * BLOCK_BYTES;
    CHECK_EQ_INT(world_touched(name, at), 0);
    CHECK_EQ_INT(world_salvage(world_flipped(name, at), name, at), 0);
    CHECK_EQ_INT(world.missing + world.back + world.wrong, 0);
    CHECK_EQ_INT(world.result.problems, 0);
}

TEST(records_whose_deletions_are_lost_come_back_and_are_told)
{
    world_prepare();
    const char *name = world_file("ovl-");
    CHECK(name[0] != '\0');
    CHECK_EQ_INT(world_salvage(world_flipped(name, 70), name, 70), 0);
    CHECK_EQ_INT(world.missing + world.wrong, 0);
    CHECK_EQ_INT(world.back, 60);
    CHECK(world.result.doubtful >= 700 && world.named >= 2);
    struct crash_fs *disk = crash_fs_copy(world.fs);
    world_remove(disk, name);
    CHECK_EQ_INT(world_salvage(disk, name, 0), 0);
    CHECK_EQ_INT(world.missing + world.wrong, 0);
    CHECK_EQ_INT(world.back, 60);
}

TEST(without_current_the_newest_manifest_is_taken)
{
    world_prepare();
    CHECK_EQ_INT(world_salvage(world_flipped("CURRENT", 3), "CURRENT", 3), 0);
    CHECK_EQ_INT(world.missing + world.back + world.wrong, 0);
    CHECK_EQ_INT(world.result.problems, 1);
    struct crash_fs *disk = crash_fs_copy(world.fs);
    world_remove(disk, "CURRENT");
    CHECK_EQ_INT(world_salvage(disk, "CURRENT", 0), 0);
    CHECK_EQ_INT(world.missing + world.back + world.wrong, 0);
    CHECK_EQ_INT(world.result.problems, 1);
}

TEST(without_a_manifest_segments_are_found_by_name)
{
    world_prepare();
    const char *name = world_file("MANIFEST-");
    struct crash_fs *disk = world_flipped(name, 90);
    struct crash_fs *second = crash_fs_copy(disk);
    CHECK_EQ_INT(world_salvage(disk, name, 90), 0);
    CHECK_EQ_INT(world.missing + world.back + world.wrong, 0);
    CHECK_EQ_INT(world.result.collections, WORLD_COLLECTIONS);
    CHECK(world.result.problems >= 5 && world.result.doubtful > 1000);
    /* Nor logs: three collections without names are left, and no trace of the fourth. */
    world_remove(second, world_file("wal-"));
    world_remove(second, name);
    world_remove(second, "CURRENT");
    world_salvage(second, "wal-", 0);
    CHECK_EQ_INT(world.result.collections, 3);
    CHECK_EQ_INT(world.missing, 200);
    CHECK_EQ_INT(world.back, 10);
    CHECK_EQ_INT(world.wrong, 20);
}

TEST(an_older_manifest_still_tells_the_names)
{
    struct memory memory;
    struct storage storage;
    struct segment_file *file = NULL;
    struct manifest manifest;
    world_prepare();
    struct crash_fs *disk = crash_fs_copy(world.fs);
    (void)world_open_segment(disk, "LOCK", &file, &storage, &memory);
    CHECK_EQ_INT(manifest_read(&storage, &manifest), OMENDB_OK);
    /* A next one, which is then damaged. */
    manifest.number = 1000;
    manifest.next_file = 1001;
    CHECK_EQ_INT(manifest_write(&storage, &manifest), OMENDB_OK);
    manifest_destroy(&memory, &manifest);
    world_inode(disk, "MANIFEST-1000")->data[66] ^= 1;
    CHECK_EQ_INT(world_salvage(disk, "MANIFEST-1000", 0), 0);
    CHECK_EQ_INT(world.missing + world.back + world.wrong, 0);
    CHECK_EQ_INT(world.result.problems, 2);
    CHECK(world.result.doubtful > 1000);
}

TEST(a_lost_segment_is_told_and_costs_its_rows_only)
{
    char name[CRASH_NAME];
    uint64_t length = 0;
    world_prepare();
    world_section(WORLD_PLAIN, SECTION_VECTORS, &length, name);
    const uint64_t size = world_inode(world.fs, name)->size;
    /* The magic of the trailer. */
    CHECK_EQ_INT(world_salvage(world_flipped(name, size - 32), name, size - 32), 0);
    CHECK_EQ_INT(world.missing, world_touched(name, size));
    CHECK_EQ_INT(world.result.problems, 2);
    CHECK_EQ_INT(world.back + world.wrong, 0);
    struct crash_fs *disk = crash_fs_copy(world.fs);
    world_remove(disk, name);
    CHECK_EQ_INT(world_salvage(disk, name, size), 0);
    CHECK_EQ_INT(world.missing, world_touched(name, size));
    CHECK_EQ_INT(world.result.problems, 2);
}

/* Each byte of the footer: what is saved is right, and most of it is saved. */
TEST(a_damaged_footer_is_used_where_it_makes_sense)
{
    char name[CRASH_NAME];
    uint64_t length = 0, whole = 0, some = 0, tried = 0;
    world_prepare();
    world_section(WORLD_PLAIN, SECTION_VECTORS, &length, name);
    const uint64_t size = world_inode(world.fs, name)->size;
    const uint64_t footer = size % BLOCK_BYTES, step = support_scale() >= 1.0 ? 3 : 31;
    for (uint64_t at = size - footer; at < size; at += step) {
        CHECK_EQ_INT(world_salvage(world_flipped(name, at), name, at), 0);
        CHECK_EQ_INT(world.back + world.wrong, 0);
        CHECK(world.result.problems >= 1);
        whole += world.missing == 0;
        some += world.missing < world_touched(name, size);
        tried++;
    }
    /* A part without a graph that says it has two of its 210 rows fewer. */
    const char *second = world_file("seg-");
    struct crash_fs *disk = crash_fs_copy(world.fs);
    struct crash_inode *inode = world_inode(disk, second);
    const uint64_t end = inode->size;
    inode->data[end - end % BLOCK_BYTES + FORMAT_PART_ROWS] ^= 2;
    CHECK_EQ_INT(inode->data[end - end % BLOCK_BYTES + FORMAT_PART_ROWS], 208);
    CHECK_EQ_INT(world_salvage(disk, second, end), 0);
    CHECK_EQ_INT(world.missing, world_touched(second, end));
    printf("    of %llu damaged footers %llu cost nothing, %llu not everything\n",
           (unsigned long long)tried, (unsigned long long)whole, (unsigned long long)some);
    CHECK(whole * 6 > tried && some * 4 > tried);
}

/* Offsets of the records of a log. */
static size_t world_records_of(const struct crash_inode *log, uint64_t *offsets, size_t capacity)
{
    size_t count = 0;
    for (uint64_t at = 64; at + 40 < log->size && count < capacity;) {
        uint32_t length;
        memcpy(&length, log->data + at, 4);
        if (length == 0)
            break;
        offsets[count++] = at;
        at += 40 + (length + 7) / 8 * 8;
    }
    return count;
}

static size_t world_log_records(uint64_t *offsets, size_t capacity)
{
    return world_records_of(world_inode(world.fs, world_file("wal-")), offsets, capacity);
}

TEST(commits_behind_a_hole_in_the_log_are_applied)
{
    uint64_t records[64];
    world_prepare();
    const char *name = world_file("wal-");
    const size_t count = world_log_records(records, 64);
    CHECK_EQ_INT(count, 2 + 20 + 1 + 10 + 1);
    /* The fifth of the ten batches of "late". */
    CHECK_EQ_INT(world_salvage(world_flipped(name, records[6] + 100), name, 0), 0);
    CHECK_EQ_INT(world.missing, 10);
    CHECK_EQ_INT(world.back + world.wrong, 0);
    CHECK_EQ_INT(world.result.problems, 1);
    /* Its length. */
    CHECK_EQ_INT(world_salvage(world_flipped(name, records[6]), name, 0), 0);
    CHECK_EQ_INT(world.missing, 10);
    CHECK_EQ_INT(world.back + world.wrong, 0);
    /* The deletion of id 133, which was in the segment. */
    CHECK_EQ_INT(world_salvage(world_flipped(name, records[26] + 8), name, 0), 0);
    CHECK_EQ_INT(world.missing + world.wrong, 0);
    CHECK_EQ_INT(world.back, 1);
    /* The replacements. */
    CHECK_EQ_INT(world_salvage(world_flipped(name, records[22] + 50), name, 0), 0);
    CHECK_EQ_INT(world.missing + world.back, 0);
    CHECK_EQ_INT(world.wrong, 20);
    /* The header. */
    CHECK_EQ_INT(world_salvage(world_flipped(name, 30), name, 0), 0);
    CHECK_EQ_INT(world.missing + world.back + world.wrong, 0);
    CHECK_EQ_INT(world.result.problems, 1);
}

TEST(a_damaged_last_commit_and_a_cut_log_are_told)
{
    uint64_t records[64];
    world_prepare();
    const char *name = world_file("wal-");
    const size_t count = world_log_records(records, 64);
    /* The last commit drops a collection that is not in the model. */
    CHECK_EQ_INT(world_salvage(world_flipped(name, records[count - 1] + 41), name, 0), 0);
    CHECK_EQ_INT(world.result.collections, WORLD_COLLECTIONS + 1);
    CHECK_EQ_INT(world.result.problems, 1);
    struct crash_fs *disk = crash_fs_copy(world.fs);
    world_inode(disk, name)->size = records[12] + 60;
    CHECK_EQ_INT(world_salvage(disk, name, 0), 0);
    CHECK_EQ_INT(world.missing, 100);
    CHECK_EQ_INT(world.result.problems, 1);
    disk = crash_fs_copy(world.fs);
    world_remove(disk, name);
    CHECK_EQ_INT(world_salvage(disk, name, 0), 0);
    CHECK_EQ_INT(world.missing, 200);
    CHECK_EQ_INT(world.result.problems, 1);
}

TEST(automatic_ids_go_on_behind_those_of_before)
{
    struct crash_fs *disk = crash_fs_create(0);
    omendb_options options;
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    uint64_t id = 0;
    float vector[2] = {1, 2};
    omendb_record record = OMENDB_RECORD_INIT;
    schema.dim = 2;
    record.vector = vector;
    world_options(disk, &options);
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "a", &schema, &collection), OMENDB_OK);
    for (int i = 0; i < 5; i++)
        CHECK_EQ_INT(omendb_add(collection, NULL, &record, &id), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(collection, NULL, id), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_salvage("/db", "/new", &options, NULL, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_open("/new", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(db, "a", NULL, &collection), OMENDB_OK);
    CHECK_EQ_INT(omendb_add(collection, NULL, &record, &id), OMENDB_OK);
    CHECK_EQ_INT(id, 5);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(disk);
}

TEST(the_new_database_answers_searches)
{
    omendb_options options;
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_query query = OMENDB_QUERY_INIT;
    float vector[WORLD_DIM], distances[3];
    uint64_t ids[3];
    size_t count = 0;
    world_prepare();
    struct crash_fs *disk = world_flipped(world_file("MANIFEST-"), 90);
    world_options(disk, &options);
    CHECK_EQ_INT(omendb_salvage("/db", "/new", &options, NULL, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_open("/new", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(db, "collection-1", NULL, &collection), OMENDB_OK);
    support_vector(world.records[WORLD_PLAIN][42].value, WORLD_DIM, vector);
    query.vector = vector;
    query.k = 3;
    CHECK_EQ_INT(omendb_search(collection, NULL, &query, ids, distances, &count), OMENDB_OK);
    CHECK(count == 3 && ids[0] == 42 && distances[0] == 0.0f);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(disk);
}

TEST(wrong_calls_are_refused)
{
    omendb_options options;
    omendb *db = NULL;
    omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
    world_prepare();
    struct crash_fs *disk = crash_fs_copy(world.fs);
    world_options(disk, &options);
    CHECK_EQ_INT(omendb_salvage(NULL, "/new", &options, NULL, NULL, NULL), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_salvage("/db", NULL, &options, NULL, NULL, NULL), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_salvage("", "/new", &options, NULL, NULL, NULL), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_salvage("/db", ":memory:", &options, NULL, NULL, NULL), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_salvage(":memory:", "/new", &options, NULL, NULL, NULL), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_salvage("/none", "/new", &options, NULL, NULL, NULL), OMENDB_NOTFOUND);
    CHECK_EQ_INT(omendb_salvage("/db", "/db", &options, NULL, NULL, NULL), OMENDB_EXISTS);
    result.struct_size = 8;
    CHECK_EQ_INT(omendb_salvage("/db", "/new", &options, NULL, NULL, &result), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_salvage("/db", "/new", &options, NULL, NULL, NULL), OMENDB_BUSY);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(omendb_salvage("/db", "/new", &options, NULL, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_salvage("/db", "/new", &options, NULL, NULL, NULL), OMENDB_EXISTS);
    crash_fs_destroy(disk);
}

TEST(a_directory_that_cannot_be_written_is_salvaged)
{
    char from[4200], to[4200];
    omendb *db = NULL;
    omendb_collection *collection = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
    options.threads = 0;
    schema.dim = 4;
    snprintf(from, sizeof from, "%s", support_path("read-only"));
    snprintf(to, sizeof to, "%s", support_path("salvaged"));
    CHECK_EQ_INT(omendb_open(from, &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(db, "a", &schema, &collection), OMENDB_OK);
    CHECK_EQ_INT(support_put(collection, NULL, 5, 5, 4), OMENDB_OK);
    CHECK_EQ_INT(omendb_salvage(from, to, &options, NULL, NULL, NULL), OMENDB_BUSY);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(chmod(from, 0500), 0);
    const int status = omendb_salvage(from, to, &options, NULL, NULL, &result);
    chmod(from, 0700);
    CHECK_EQ_INT(status, OMENDB_OK);
    CHECK_EQ_INT(result.records, 1);
    char inside[4300];
    snprintf(inside, sizeof inside, "%s/inside", from);
    CHECK_EQ_INT(omendb_salvage(from, inside, &options, NULL, NULL, NULL), OMENDB_INVALID);
}

/* Whatever happens to one byte of one file, or to its end, nothing crashes, and what the damage
 * does not touch is saved. */
TEST(any_damage_leaves_what_it_does_not_touch)
{
    struct support_random random = {support_seed(7)};
    const uint64_t rounds = support_scaled(300, 30);
    uint64_t bad = 0;
    world_prepare();
    for (uint64_t i = 0; i < rounds && bad < 3; i++) {
        struct crash_fs *disk = crash_fs_copy(world.fs);
        const size_t file = (size_t)support_below(&random, disk->directories[0].count);
        struct crash_inode *inode = &disk->inodes[disk->directories[0].entries[file].inode];
        uint64_t at = inode->size == 0 ? 0 : support_below(&random, inode->size);
        char name[CRASH_NAME];
        snprintf(name, sizeof name, "%s", disk->directories[0].entries[file].name);
        const int cut = support_below(&random, 4) == 0;
        if (cut)
            inode->size = at;
        else if (inode->size != 0)
            inode->data[at] ^= (uint8_t)(1 + support_below(&random, 255));
        const uint64_t wrong = world_salvage(disk, name, cut ? UINT64_MAX : at);
        if (wrong != 0)
            fprintf(stderr, "FAILED: round %llu, %s, %s %llu: %lld records\n",
                    (unsigned long long)i, name, cut ? "cut at" : "flipped", (unsigned long long)at,
                    (long long)wrong);
        bad += wrong != 0;
        /* A row is right or it is not there. */
        CHECK(strncmp(name, "seg-", 4) != 0 || world.wrong == 0);
    }
    CHECK_EQ_INT(bad, 0);
}

/* Random bytes over wide stretches of several files at once: errors, and no more. */
TEST(ruins_are_no_danger)
{
    struct support_random random = {support_seed(8)};
    const uint64_t rounds = support_scaled(200, 20);
    uint64_t bad = 0;
    world_prepare();
    for (uint64_t i = 0; i < rounds && bad < 3; i++) {
        struct crash_fs *disk = crash_fs_copy(world.fs);
        for (size_t file = 0; file < disk->directories[0].count; file++) {
            struct crash_inode *inode = &disk->inodes[disk->directories[0].entries[file].inode];
            if (inode->size == 0 || support_below(&random, 3) == 0)
                continue;
            uint64_t at = support_below(&random, inode->size);
            for (uint64_t left = support_below(&random, 3000); left > 0 && at < inode->size; left--)
                inode->data[at++] = (uint8_t)support_next(&random);
        }
        bad += world_salvage(disk, "", 0) == UINT64_MAX;
    }
    CHECK_EQ_INT(bad, 0);
}

/* An allocator whose n-th call fails, and which counts what it gave. */
struct faulty_memory {
    uint64_t calls, at;
    int64_t bytes;
};

static void *faulty_alloc(void *context, size_t size)
{
    struct faulty_memory *memory = context;
    if (++memory->calls == memory->at)
        return NULL;
    memory->bytes += (int64_t)size;
    return malloc(size);
}

static void *faulty_resize(void *context, void *block, size_t old_size, size_t new_size)
{
    struct faulty_memory *memory = context;
    if (++memory->calls == memory->at)
        return NULL;
    memory->bytes += (int64_t)new_size - (int64_t)old_size;
    return realloc(block, new_size);
}

static void faulty_release(void *context, void *block, size_t size)
{
    struct faulty_memory *memory = context;
    memory->bytes -= (int64_t)size;
    free(block);
}

/* Without memory there is an error or, where it was no more than a graph or codes that lacked it,
 * everything is saved; and nothing is kept. */
TEST(lack_of_memory_is_an_error_and_leaks_nothing)
{
    struct faulty_memory memory = {0, 0, 0};
    omendb_allocator allocator = {sizeof allocator, &memory, faulty_alloc, faulty_resize,
                                  faulty_release};
    uint64_t refused = 0;
    world_prepare();
    for (uint64_t at = 1; memory.calls >= memory.at;
         at += 1 + (uint64_t)((double)at / 15 / support_scale())) {
        struct crash_fs *disk = crash_fs_copy(world.fs);
        omendb_options options;
        omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
        world_options(disk, &options);
        options.allocator = &allocator;
        memory.calls = 0;
        memory.at = at;
        const int status = omendb_salvage("/db", "/new", &options, NULL, NULL, &result);
        crash_fs_destroy(disk);
        CHECK(status == OMENDB_OK || status == OMENDB_NOMEM);
        CHECK(status != OMENDB_OK || (result.records == world.saved && result.problems == 0));
        CHECK_EQ_INT(memory.bytes, 0);
        refused += status == OMENDB_NOMEM;
    }
    printf("    of %llu allocations, %llu that failed were an error\n",
           (unsigned long long)memory.calls, (unsigned long long)refused);
    CHECK((double)refused > 10 * support_scale());
}

/* A call that fails once: an error, or a problem that is told; then what was saved is right. */
TEST(a_failing_device_is_told)
{
    const uint64_t step = support_scale() >= 1.0 ? 7 : 97;
    uint64_t hits = 1;
    world_prepare();
    for (uint64_t at = 1; hits != 0; at += step) {
        struct crash_fs *disk = crash_fs_copy(world.fs);
        omendb_options options;
        omendb *db = NULL;
        omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
        world_options(disk, &options);
        crash_faults_begin(disk, CRASH_CALL_READ, at, 0, OMENDB_IOERR, EIO);
        const int status = omendb_salvage("/db", "/new", &options, NULL, NULL, &result);
        hits = disk->faults.hits;
        crash_faults_begin(disk, 0, 0, 0, 0, 0);
        CHECK(status == OMENDB_OK || status == OMENDB_IOERR);
        CHECK(status != OMENDB_OK || result.problems > 0 || result.records == world.saved);
        if (status == OMENDB_OK) {
            CHECK_EQ_INT(omendb_open("/new", &options, &db), OMENDB_OK);
            CHECK_EQ_INT(support_check(db), OMENDB_OK);
            (void)world_compare(db, "", 0);
            CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
            CHECK(result.problems > 0 || world.missing + world.back + world.wrong == 0);
        }
        crash_fs_destroy(disk);
    }
}

/* ------------------------------------------------------------------------------------------------
 * prepared transactions */

#define TWO_PHASE_DIM 4

struct two_phase_report {
    const char *wanted;
    int told; /* lines with `wanted` in them */
};

static void two_phase_line(void *context, const char *line)
{
    struct two_phase_report *report = context;
    world_line(&(uint64_t){0}, line);
    report->told += report->wanted != NULL && strstr(line, report->wanted) != NULL;
}

/* Puts two records, deletes one. */
static void two_phase_prepare(omendb *db, omendb_collection *collection, const char *name,
                              uint64_t first)
{
    omendb_txn *txn = NULL;
    world_must(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn));
    world_must(support_put(collection, txn, first, first, TWO_PHASE_DIM));
    world_must(support_put(collection, txn, first + 100, first, TWO_PHASE_DIM));
    world_must(omendb_delete(collection, txn, first + 1));
    world_must(omendb_txn_prepare(txn, name));
}

/* Commits 1 and 2 of the log create and fill "a", 3 to 10 are those below. A checkpoint instead of
 * the death in between copies what is known into another log. */
static struct crash_fs *two_phase_disk(int checkpoint)
{
    struct crash_fs *fs = crash_fs_create(0);
    omendb_options options;
    omendb *db = NULL;
    omendb_collection *a = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    float vectors[60 * TWO_PHASE_DIM];
    schema.dim = TWO_PHASE_DIM;
    world_options(fs, &options);
    world_must(omendb_open("/db", &options, &db));
    world_must(omendb_collection_create(db, "a", &schema, &a));
    for (uint64_t id = 0; id < 60; id++)
        support_vector(1000 + id, TWO_PHASE_DIM, vectors + id * TWO_PHASE_DIM);
    world_must(omendb_add_batch(a, NULL, 60, NULL, vectors, OMENDB_F32, NULL));
    two_phase_prepare(db, a, "waits", 10);               /* 3 */
    two_phase_prepare(db, a, "committed", 20);           /* 4 */
    two_phase_prepare(db, a, "back", 30);                /* 5 */
    two_phase_prepare(db, a, "forgotten", 40);           /* 6 */
    world_must(omendb_commit_prepared(db, "committed")); /* 7 */
    world_must(omendb_rollback_prepared(db, "back"));    /* 8 */
    world_must(omendb_commit_prepared(db, "forgotten")); /* 9 */
    world_must(omendb_forget_prepared(db, "forgotten")); /* 10 */
    if (checkpoint)
        world_must(omendb_checkpoint(db));
    struct crash_fs *copy = crash_fs_copy(fs);
    omendb_collection_close(a);
    world_must(omendb_close(db));
    crash_fs_destroy(fs);
    return copy;
}

static struct crash_inode *two_phase_log(struct crash_fs *disk)
{
    const struct crash_directory *all = &disk->directories[0];
    for (size_t i = all->count; i-- > 0;)
        if (strncmp(all->entries[i].name, "wal-", 4) == 0)
            return &disk->inodes[all->entries[i].inode];
    return NULL;
}

/* Damages commit `number` of the only log; 0: none. */
static void two_phase_damage(struct crash_fs *disk, size_t number)
{
    uint64_t records[32];
    struct crash_inode *log = two_phase_log(disk);
    const size_t count = world_records_of(log, records, 32);
    if (number > 0 && number <= count)
        log->data[records[number - 1] + 45] ^= 0x55;
}

static int two_phase_state(omendb *db, const char *wanted)
{
    char name[OMENDB_PREPARED_NAME_MAX + 1];
    int state;
    for (size_t i = 0; omendb_prepared_name(db, i, name, sizeof name, &state) == OMENDB_OK; i++)
        if (strcmp(name, wanted) == 0)
            return state;
    return 0;
}

/* Whether those two records are there, and that one is not. */
static int two_phase_is_applied(omendb *db, uint64_t first)
{
    omendb_collection *a = NULL;
    float vector[TWO_PHASE_DIM], expected[TWO_PHASE_DIM];
    int good = omendb_collection_open(db, "a", NULL, &a) == OMENDB_OK;
    support_vector(first, TWO_PHASE_DIM, expected);
    for (uint64_t id = first; id <= first + 100 && good; id += 100)
        good = omendb_get(a, NULL, id, OMENDB_F32, vector) == OMENDB_OK &&
               memcmp(vector, expected, sizeof vector) == 0;
    good = good && omendb_get(a, NULL, first + 1, OMENDB_F32, vector) == OMENDB_NOTFOUND;
    omendb_collection_close(a);
    return good;
}

static int two_phase_salvage(struct crash_fs *disk, struct two_phase_report *report, omendb **db,
                             omendb_salvage_result *result)
{
    omendb_options options;
    world_options(disk, &options);
    omendb_salvage_result_init(result);
    const int code = omendb_salvage("/db", "/new", &options, two_phase_line, report, result);
    return code != OMENDB_OK ? code : omendb_open("/new", &options, db);
}

TEST(prepared_transactions_wait_or_are_remembered_in_the_new_database)
{
    for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
        struct crash_fs *disk = two_phase_disk(checkpoint);
        struct two_phase_report report = {NULL, 0};
        omendb_options options;
        omendb_salvage_result result;
        omendb *db = NULL, *old = NULL;
        omendb_collection *a = NULL;
        uint64_t digest = 0, expected = 1;
        CHECK_EQ_INT(two_phase_salvage(disk, &report, &db, &result), OMENDB_OK);
        CHECK_EQ_INT(result.problems, 0);
        world_options(disk, &options);
        CHECK_EQ_INT(omendb_open("/db", &options, &old), OMENDB_OK);
        for (int settled = 0; settled < 2; settled++) {
            CHECK_EQ_INT(support_digest(db, NULL, &digest), OMENDB_OK);
            CHECK_EQ_INT(support_digest(old, NULL, &expected), OMENDB_OK);
            CHECK(digest == expected);
            CHECK_EQ_INT(omendb_collection_open(db, "a", NULL, &a), OMENDB_OK);
            CHECK_EQ_INT(support_put(a, NULL, 10, 1, TWO_PHASE_DIM),
                         settled ? OMENDB_OK : OMENDB_BUSY);
            CHECK_EQ_INT(support_put(a, NULL, 10, 10, TWO_PHASE_DIM),
                         settled ? OMENDB_OK : OMENDB_BUSY);
            omendb_collection_close(a);
            CHECK_EQ_INT(omendb_commit_prepared(db, "waits"), OMENDB_OK);
            CHECK_EQ_INT(omendb_commit_prepared(old, "waits"), OMENDB_OK);
        }
        CHECK(two_phase_is_applied(db, 10) && two_phase_is_applied(db, 20));
        CHECK_EQ_INT(omendb_commit_prepared(db, "committed"), OMENDB_OK);
        CHECK_EQ_INT(omendb_commit_prepared(db, "back"), OMENDB_CONFLICT);
        CHECK_EQ_INT(omendb_forget_prepared(db, "back"), OMENDB_OK);
        CHECK_EQ_INT(omendb_forget_prepared(db, "forgotten"), OMENDB_NOTFOUND);
        CHECK_EQ_INT(support_check(db), OMENDB_OK);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        CHECK_EQ_INT(omendb_close(old), OMENDB_OK);
        crash_fs_destroy(disk);
    }
}

/* Which commit is damaged, what is told then, the states after it of "waits", "committed", "back"
 * and "forgotten", and whether the changes of "committed" are there. */
TEST(a_hole_in_the_log_costs_of_prepared_transactions_what_lay_in_it)
{
    static const struct {
        size_t commit;
        const char *told;
        int states[4], applied;
    } cases[] = {
        {3, NULL, {0, 2, 3, 0}, 1},
        {4, "\"committed\" was committed, but its changes", {1, 2, 3, 0}, 0},
        {5, NULL, {1, 2, 3, 0}, 1},
        {6, "\"forgotten\" was committed, but its changes", {1, 2, 3, 0}, 1},
        {7, NULL, {1, 1, 3, 0}, 0},
        {8, NULL, {1, 2, 1, 0}, 1},
        {9, "\"forgotten\" is forgotten, but what became", {1, 2, 3, 0}, 1},
    };
    static const char *const names[] = {"waits", "committed", "back", "forgotten"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct crash_fs *disk = two_phase_disk(0);
        struct two_phase_report report = {cases[i].told, 0};
        omendb_salvage_result result;
        omendb *db = NULL;
        two_phase_damage(disk, cases[i].commit);
        CHECK_EQ_INT(two_phase_salvage(disk, &report, &db, &result), OMENDB_OK);
        CHECK_EQ_INT(report.told, cases[i].told != NULL);
        CHECK_EQ_INT(result.problems, 1 + report.told);
        for (int k = 0; k < 4; k++)
            CHECK_EQ_INT(two_phase_state(db, names[k]), cases[i].states[k]);
        CHECK_EQ_INT(two_phase_is_applied(db, 20), cases[i].applied);
        CHECK_EQ_INT(support_check(db), OMENDB_OK);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        crash_fs_destroy(disk);
    }
}

/* The record that "waits" deletes is lost with the commit that put it. */
TEST(what_waits_can_be_committed_where_its_records_are_lost)
{
    struct crash_fs *disk = two_phase_disk(0);
    struct two_phase_report report = {NULL, 0};
    omendb_salvage_result result;
    omendb *db = NULL;
    two_phase_damage(disk, 2);
    CHECK_EQ_INT(two_phase_salvage(disk, &report, &db, &result), OMENDB_OK);
    CHECK_EQ_INT(result.problems, 1);
    CHECK_EQ_INT(two_phase_state(db, "waits"), OMENDB_PREPARED_WAITING);
    CHECK(two_phase_is_applied(db, 20));
    CHECK_EQ_INT(omendb_commit_prepared(db, "waits"), OMENDB_OK);
    CHECK(two_phase_is_applied(db, 10));
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(disk);
}

TEST(an_outcome_is_remembered_also_where_nothing_else_is_left)
{
    struct crash_fs *disk = crash_fs_create(0);
    struct two_phase_report report = {NULL, 0};
    omendb_options options;
    omendb_salvage_result result;
    omendb *db = NULL;
    omendb_txn *txn = NULL;
    world_options(disk, &options);
    CHECK_EQ_INT(omendb_open("/db", &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "alone"), OMENDB_OK);
    CHECK_EQ_INT(omendb_rollback_prepared(db, "alone"), OMENDB_OK);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    CHECK_EQ_INT(two_phase_salvage(disk, &report, &db, &result), OMENDB_OK);
    CHECK_EQ_INT(two_phase_state(db, "alone"), OMENDB_PREPARED_ROLLED_BACK);
    CHECK_EQ_INT(result.problems, 0);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(disk);
}

TEST(without_memory_no_prepared_transaction_is_passed_over)
{
    struct faulty_memory memory = {0, 0, 0};
    omendb_allocator allocator = {sizeof allocator, &memory, faulty_alloc, faulty_resize,
                                  faulty_release};
    uint64_t refused = 0;
    for (uint64_t at = 1; memory.calls >= memory.at; at++) {
        struct crash_fs *disk = two_phase_disk(at % 2 == 0);
        omendb_options options;
        omendb *db = NULL;
        omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
        world_options(disk, &options);
        options.allocator = &allocator;
        memory.calls = 0;
        memory.at = at;
        const int status = omendb_salvage("/db", "/new", &options, NULL, NULL, &result);
        memory.at = 0;
        CHECK(status == OMENDB_OK || status == OMENDB_NOMEM);
        CHECK_EQ_INT(memory.bytes, 0);
        memory.at = at;
        options.allocator = NULL;
        if (status == OMENDB_OK) {
            CHECK_EQ_INT(omendb_open("/new", &options, &db), OMENDB_OK);
            CHECK_EQ_INT(two_phase_state(db, "waits"), OMENDB_PREPARED_WAITING);
            CHECK_EQ_INT(two_phase_state(db, "committed"), OMENDB_PREPARED_COMMITTED);
            CHECK_EQ_INT(two_phase_state(db, "back"), OMENDB_PREPARED_ROLLED_BACK);
            CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        }
        crash_fs_destroy(disk);
        refused += status == OMENDB_NOMEM;
    }
    CHECK(refused > 10);
}

/* ------------------------------------------------------------------------------------------------
 * logs that lost their header, or pages of them */

#define LOST_SINGLES 50

/* A collection that the manifest knows, and a log that begins with one batch, of `batch` records
 * from id `first` on, and goes on with records 0 to 49, one by one. */
static struct crash_fs *lost_disk(uint32_t dim, uint32_t scalar, size_t batch, uint64_t first,
                                  const void *vectors)
{
    struct crash_fs *fs = crash_fs_create(0);
    omendb_options options;
    omendb *db = NULL;
    omendb_collection *a = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    uint64_t *ids = malloc(batch * sizeof *ids);
    schema.dim = dim;
    schema.scalar = scalar;
    world_options(fs, &options);
    options.wal_limit = UINT64_C(1) << 30;
    world_must(omendb_open("/db", &options, &db));
    world_must(omendb_collection_create(db, "a", &schema, &a));
    world_must(support_put(a, NULL, 1000, 1, dim));
    world_must(omendb_checkpoint(db));
    for (size_t i = 0; i < batch; i++)
        ids[i] = first + i;
    world_must(omendb_put_batch(a, NULL, batch, ids, vectors, (int)scalar, NULL));
    for (uint64_t id = 0; id < LOST_SINGLES; id++)
        world_must(support_put(a, NULL, id, id, dim));
    free(ids);
    omendb_collection_close(a);
    struct crash_fs *copy = crash_fs_copy(fs);
    world_must(omendb_close(db));
    crash_fs_destroy(fs);
    return copy;
}

/* The log's header and its first record are overwritten. */
static void lost_begin(struct crash_fs *disk)
{
    struct crash_inode *log = two_phase_log(disk);
    memset(log->data, 0xee, FORMAT_HEADER_BYTES + FORMAT_RECORD_BYTES);
}

/* Salvages; how many of the single records are there. UINT64_MAX: something else is wrong, or
 * nothing that was told holds `wanted`. */
static uint64_t lost_salvage(struct crash_fs *disk, const char *wanted,
                             omendb_salvage_result *result)
{
    struct two_phase_report report = {wanted, 0};
    omendb *db = NULL;
    omendb_collection *a = NULL;
    uint64_t found = 0;
    float vector[SUPPORT_DIM_MAX];
    int good = two_phase_salvage(disk, &report, &db, result) == OMENDB_OK && report.told > 0 &&
               omendb_collection_open(db, "a", NULL, &a) == OMENDB_OK;
    for (uint64_t id = 0; id < LOST_SINGLES && good; id++)
        found += omendb_get(a, NULL, id, OMENDB_F32, vector) == OMENDB_OK;
    omendb_collection_close(a);
    good = good && support_check(db) == OMENDB_OK;
    good = omendb_close(db) == OMENDB_OK && good;
    crash_fs_destroy(disk);
    return good ? found : UINT64_MAX;
}

/* The ids of the lost batch look like headers of records, of which each is as long as its id. */
TEST(a_log_without_header_and_first_commit_gives_its_later_ones)
{
    enum { ROWS = 20000 };
    static float vectors[ROWS * 2];
    omendb_salvage_result result;
    for (size_t i = 0; i < ROWS; i++)
        support_vector(i, 2, vectors + i * 2);
    struct crash_fs *disk = lost_disk(2, OMENDB_F32, ROWS, 20000, vectors);
    lost_begin(disk);
    CHECK_EQ_INT(lost_salvage(disk, "header (offset 0) is damaged", &result), LOST_SINGLES);
    CHECK_EQ_INT(result.records, LOST_SINGLES + 1);
    CHECK_EQ_INT(result.problems, 3);
}

/* A valid record of another log. */
static void lost_quote(uint8_t *quoted, size_t size)
{
    memset(quoted, 0, size);
    format_put32(quoted + FORMAT_RECORD_LENGTH, (uint32_t)size - FORMAT_RECORD_BYTES);
    format_put64(quoted + FORMAT_RECORD_SEQUENCE, 1000000);
    format_put64(quoted + FORMAT_RECORD_LOG_ID, 12345);
    format_put32(quoted + FORMAT_RECORD_TYPE, WAL_COMMIT);
    quoted[size - 4] = 7;
    uint32_t crc = checksum_crc32c(0, quoted, FORMAT_RECORD_CRC);
    crc = checksum_crc32c(crc, quoted + FORMAT_RECORD_SEQUENCE, size - FORMAT_RECORD_SEQUENCE);
    format_put32(quoted + FORMAT_RECORD_CRC, crc);
}

/* What is lost had it as a vector. */
TEST(a_log_without_header_is_not_taken_for_one_that_its_payload_quotes)
{
    enum { DIM = 32, ROWS = 2 };
    omendb_salvage_result result;
    uint8_t quoted[ROWS * DIM];
    lost_quote(quoted, sizeof quoted);
    struct crash_fs *disk = lost_disk(DIM, OMENDB_U8, ROWS, 2000, quoted);
    lost_begin(disk);
    CHECK_EQ_INT(lost_salvage(disk, "before commit", &result), LOST_SINGLES);
    CHECK_EQ_INT(result.records, LOST_SINGLES + 1);
    CHECK_EQ_INT(result.problems, 3);
}

/* The same where the only record left of its own is larger than the quoted one. */
TEST(a_log_without_header_has_the_id_that_most_of_its_bytes_name)
{
    enum { DIM = 32, ROWS = 2 };
    omendb_salvage_result result;
    uint8_t quoted[ROWS * DIM];
    lost_quote(quoted, sizeof quoted);
    struct crash_fs *disk = lost_disk(DIM, OMENDB_U8, ROWS, 2000, quoted);
    struct crash_inode *log = two_phase_log(disk);
    size_t at = FORMAT_HEADER_BYTES;
    for (int records = 0; records < 2; records++) {
        const size_t length = format_get32(log->data + at + FORMAT_RECORD_LENGTH);
        at += (FORMAT_RECORD_BYTES + length + FORMAT_RECORD_ALIGN - 1) / FORMAT_RECORD_ALIGN *
              FORMAT_RECORD_ALIGN;
    }
    memset(log->data + at, 0, log->size - at);
    lost_begin(disk);
    CHECK_EQ_INT(lost_salvage(disk, "before commit", &result), 1);
    CHECK_EQ_INT(result.records, 2);
}

/* What a crash leaves of logs that were being made, as opening takes it. */
TEST(a_log_of_nothing_but_zeros_is_no_loss)
{
    static uint8_t zeros[3 * 4096];
    static float vectors[2];
    omendb_salvage_result result;
    omendb *db = NULL;
    struct two_phase_report report = {"", 0};
    struct crash_fs *disk = lost_disk(2, OMENDB_F32, 1, 2000, vectors);
    struct crash_fs *copy = crash_fs_copy(disk);
    crash_fs_add_file(disk, "/db", "wal-90", zeros, 0);
    crash_fs_add_file(disk, "/db", "wal-91", zeros, sizeof zeros);
    CHECK_EQ_INT(two_phase_salvage(disk, &report, &db, &result), OMENDB_OK);
    CHECK_EQ_INT(result.records, LOST_SINGLES + 2);
    CHECK_EQ_INT(result.lost_files, 0);
    CHECK_EQ_INT(result.problems, 0);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(disk);
    /* but not of the first one */
    memset(two_phase_log(copy)->data, 0, two_phase_log(copy)->size);
    report.wanted = "is missing or empty";
    CHECK_EQ_INT(two_phase_salvage(copy, &report, &db, &result), OMENDB_OK);
    CHECK_EQ_INT(result.records, 1);
    CHECK_EQ_INT(result.lost_files, 1);
    CHECK(report.told > 0);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(copy);
}

/* Bytes [unreadable_begin, unreadable_end) of the file with that inode. */
static uint32_t unreadable_inode;
static uint64_t unreadable_begin, unreadable_end;

static int unreadable_read(void *context, void *handle, uint64_t offset, void *buffer, size_t size)
{
    const struct crash_handle *file = handle;
    if (file->inode == unreadable_inode && offset < unreadable_end &&
        offset + size > unreadable_begin) {
        errno = EIO;
        return OMENDB_IOERR;
    }
    return crash_read(context, handle, offset, buffer, size);
}

static void unreadable_prepare(struct crash_fs *disk, uint64_t begin, uint64_t end)
{
    unreadable_inode = (uint32_t)(two_phase_log(disk) - disk->inodes);
    unreadable_begin = begin;
    unreadable_end = end;
    disk->vfs.read = unreadable_read;
}

/* A sector that the device does not give, at each place of the log: what lies in its page is lost,
 * and told. */
TEST(an_unreadable_sector_of_a_log_costs_the_commits_in_its_page)
{
    enum { ROWS = 1000 };
    static float vectors[ROWS * 2];
    uint64_t records[LOST_SINGLES + 1];
    for (size_t i = 0; i < ROWS; i++)
        support_vector(i, 2, vectors + i * 2);
    struct crash_fs *start = lost_disk(2, OMENDB_F32, ROWS, 2000, vectors);
    CHECK_EQ_INT(world_records_of(two_phase_log(start), records, LOST_SINGLES + 1),
                 LOST_SINGLES + 1);
    const uint64_t size = records[LOST_SINGLES] + 8192; /* zeros at the end */
    crash_resize(two_phase_log(start), size);
    for (uint64_t at = 0; at < size; at += CRASH_SECTOR) {
        struct crash_fs *disk = crash_fs_copy(start);
        omendb_salvage_result result;
        const uint64_t page = at / 4096 * 4096;
        uint64_t whole = 0;
        for (size_t i = 1; i <= LOST_SINGLES; i++) {
            const uint64_t end = i < LOST_SINGLES ? records[i + 1] : records[i] + 80;
            whole += records[i] >= page + 4096 || end <= page;
        }
        unreadable_prepare(disk, at, at + CRASH_SECTOR);
        CHECK_EQ_INT(lost_salvage(disk, "Input/output error", &result), whole);
        CHECK(result.records == 1 + whole || result.records == 1 + whole + ROWS);
        CHECK(result.records == 1 + whole + ROWS || page < records[1]);
        CHECK_EQ_INT(result.lost_files, 0);
    }
    crash_fs_destroy(start);
}

/* Without any answer of the device there is nothing but the report. */
TEST(a_log_that_cannot_be_read_at_all_is_told)
{
    const float vector[2] = {1, 2};
    struct crash_fs *disk = lost_disk(2, OMENDB_F32, 1, 2000, vector);
    omendb_salvage_result result;
    unreadable_prepare(disk, 0, UINT64_MAX);
    CHECK_EQ_INT(lost_salvage(disk, "Input/output error", &result), 0);
    CHECK_EQ_INT(result.records, 1);
    CHECK_EQ_INT(result.lost_files, 1);
}

static uint32_t forbidden_inode;

static int forbidden_open(void *context, void *directory, const char *name, int flags,
                          void **handle)
{
    const int code = crash_open(context, directory, name, flags, handle);
    if (code != OMENDB_OK || ((struct crash_handle *)*handle)->inode != forbidden_inode)
        return code;
    ((struct crash_fs *)context)->vfs.close(context, *handle);
    *handle = NULL;
    errno = EACCES;
    return OMENDB_PERMISSION;
}

/* Of any of the files: it is told, and the others are salvaged. */
TEST(a_file_that_may_not_be_opened_costs_what_it_holds)
{
    world_prepare();
    for (size_t i = 0; i < world.fs->directories[0].count; i++) {
        const char *name = world.fs->directories[0].entries[i].name;
        struct crash_fs *disk = crash_fs_copy(world.fs);
        forbidden_inode = disk->directories[0].entries[i].inode;
        disk->vfs.open = forbidden_open;
        CHECK_EQ_INT(world_salvage(disk, name, UINT64_MAX), 0);
        CHECK(strcmp(name, "LOCK") == 0 || world.named >= 1);
        CHECK_EQ_INT(world.result.lost_files,
                     strncmp(name, "wal-", 4) == 0 || strncmp(name, "seg-", 4) == 0);
    }
}

/* ------------------------------------------------------------------------------------------------
 * prepared transactions of many deletes */

/* Appends commit `number` to the only log. */
static void log_append(struct crash_fs *disk, uint64_t number, const uint8_t *payload, size_t size)
{
    struct crash_inode *log = two_phase_log(disk);
    uint64_t at = FORMAT_HEADER_BYTES;
    while (at + FORMAT_RECORD_BYTES < log->size && format_get32(log->data + at) != 0)
        at += FORMAT_RECORD_BYTES + format_align(format_get32(log->data + at), FORMAT_RECORD_ALIGN);
    crash_resize(log, at);
    crash_resize(log, at + FORMAT_RECORD_BYTES + size);
    uint8_t *record = log->data + at;
    format_put32(record + FORMAT_RECORD_LENGTH, (uint32_t)size);
    format_put64(record + FORMAT_RECORD_SEQUENCE, number);
    format_put64(record + FORMAT_RECORD_LOG_ID, format_get64(log->data + FORMAT_WAL_LOG_ID));
    format_put32(record + FORMAT_RECORD_TYPE, WAL_COMMIT);
    memcpy(record + FORMAT_RECORD_BYTES, payload, size);
    uint32_t crc = checksum_crc32c(0, record, FORMAT_RECORD_CRC);
    crc = checksum_crc32c(crc, record + FORMAT_RECORD_SEQUENCE,
                          FORMAT_RECORD_BYTES + size - FORMAT_RECORD_SEQUENCE);
    format_put32(record + FORMAT_RECORD_CRC, crc);
}

/* Appends a commit: the transaction `name`, of one letter, is prepared, and deletes ids 0 to
 * count - 1 of the first collection. */
static void many_append(struct crash_fs *disk, char name, uint32_t count, uint64_t number)
{
    const size_t changes = 16 + (size_t)count * 8, size = 24 + changes;
    uint8_t *payload = calloc(1, size);
    format_put32(payload, CHANGE_PREPARE);
    format_put32(payload + 4, 1);
    format_put64(payload + 8, changes);
    payload[16] = (uint8_t)name;
    format_put32(payload + 24, CHANGE_DELETE);
    format_put32(payload + 28, count);
    format_put64(payload + 32, 1);
    for (uint64_t id = 0; id < count; id++)
        format_put64(payload + 40 + id * 8, id);
    log_append(disk, number, payload, size);
    free(payload);
}

/* Records [0, rows) of one collection, in the log; with it commits 1 and 2. */
static struct crash_fs *many_disk(uint32_t dim, size_t rows)
{
    struct crash_fs *fs = crash_fs_create(0);
    omendb_options options;
    omendb *db = NULL;
    omendb_collection *a = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    float *vectors = calloc(rows * dim, sizeof *vectors);
    uint64_t *ids = malloc(rows * sizeof *ids);
    schema.dim = dim;
    world_options(fs, &options);
    options.wal_limit = UINT64_C(1) << 30;
    for (size_t i = 0; i < rows; i++) {
        ids[i] = i;
        vectors[i * dim] = (float)(i % 1000);
    }
    world_must(omendb_open("/db", &options, &db));
    world_must(omendb_collection_create(db, "a", &schema, &a));
    world_must(omendb_put_batch(a, NULL, rows, ids, vectors, OMENDB_F32, NULL));
    omendb_collection_close(a);
    struct crash_fs *copy = crash_fs_copy(fs);
    world_must(omendb_close(db));
    crash_fs_destroy(fs);
    free(vectors);
    free(ids);
    return copy;
}

/* 5,000 of the largest vectors, though of most of them nothing is left, are more than a batch may
 * have. */
TEST(a_prepared_transaction_of_many_deletes_waits_in_the_new_database)
{
    struct crash_fs *disk = many_disk(65535, 3);
    struct two_phase_report report = {NULL, 0};
    omendb_salvage_result result;
    omendb *db = NULL;
    omendb_stats stats = OMENDB_STATS_INIT;
    many_append(disk, 'x', 5000, 3);
    CHECK_EQ_INT(two_phase_salvage(disk, &report, &db, &result), OMENDB_OK);
    CHECK_EQ_INT(result.problems, 0);
    CHECK_EQ_INT(result.records, 3);
    CHECK_EQ_INT(two_phase_state(db, "x"), OMENDB_PREPARED_WAITING);
    CHECK_EQ_INT(omendb_commit_prepared(db, "x"), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(db, &stats), OMENDB_OK);
    CHECK_EQ_INT(stats.records, 0);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    crash_fs_destroy(disk);
}

/* Prepared last, it comes first; the other does not suffer. Of the two sizes one is refused, with
 * the other memory ends before. */
TEST(a_prepared_transaction_without_room_is_told_and_keeps_no_other_out)
{
    static const uint32_t sizes[] = {12000, 100000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct crash_fs *disk = many_disk(2, sizes[i]);
        struct two_phase_report report = {"\"x\" is lost, as memory_limit", 0};
        omendb_options options;
        omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
        omendb *db = NULL;
        many_append(disk, 'a', 10, 3);
        many_append(disk, 'x', sizes[i], 4);
        world_options(disk, &options);
        options.memory_limit = OMENDB_MEMORY_LIMIT_MIN;
        CHECK_EQ_INT(omendb_salvage("/db", "/new", &options, two_phase_line, &report, &result),
                     OMENDB_OK);
        CHECK_EQ_INT(report.told, 1);
        CHECK_EQ_INT(result.problems, 1);
        CHECK_EQ_INT(result.records, sizes[i]);
        CHECK_EQ_INT(omendb_open("/new", &options, &db), OMENDB_OK);
        CHECK_EQ_INT(two_phase_state(db, "a"), OMENDB_PREPARED_WAITING);
        CHECK_EQ_INT(two_phase_state(db, "x"), 0);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        crash_fs_destroy(disk);
    }
}

/* ------------------------------------------------------------------------------------------------
 * what is told of a salvage that failed */

TEST(the_result_of_a_failed_salvage_is_what_is_there)
{
    uint64_t hits = 1, some = 0;
    world_prepare();
    for (uint64_t at = 3; hits != 0; at += 3) {
        struct crash_fs *disk = crash_fs_copy(world.fs);
        omendb_options options;
        omendb *db = NULL;
        omendb_stats stats = OMENDB_STATS_INIT;
        omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
        world_options(disk, &options);
        crash_faults_begin(disk, CRASH_CALL_WRITE, at, 1, OMENDB_FULL, ENOSPC);
        const int status = omendb_salvage("/db", "/new", &options, NULL, NULL, &result);
        hits = disk->faults.hits;
        crash_faults_begin(disk, 0, 0, 0, 0, 0);
        CHECK_EQ_INT(status, hits == 0 ? OMENDB_OK : OMENDB_FULL);
        CHECK_EQ_INT(omendb_open("/new", &options, &db), OMENDB_OK);
        CHECK_EQ_INT(omendb_get_stats(db, &stats), OMENDB_OK);
        CHECK_EQ_INT(result.records, stats.records);
        CHECK_EQ_INT(result.collections, stats.collections);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        crash_fs_destroy(disk);
        some += hits != 0 && result.records > 0;
    }
    CHECK(some > 3);
}

/* ------------------------------------------------------------------------------------------------
 * very many collections */

/* A log that creates as many collections, with a commit each, and then drops all of them in one,
 * the last one first. */
static struct crash_fs *crowd_disk(uint32_t count)
{
    struct crash_fs *fs = crash_fs_create(0);
    omendb_options options;
    omendb *db = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = 2;
    world_options(fs, &options);
    options.wal_limit = UINT64_C(1) << 30;
    world_must(omendb_open("/db", &options, &db));
    for (uint32_t i = 0; i < count; i++) {
        char name[32];
        omendb_collection *collection = NULL;
        snprintf(name, sizeof name, "collection %08u", i);
        world_must(omendb_collection_create(db, name, &schema, &collection));
        omendb_collection_close(collection);
    }
    struct crash_fs *copy = crash_fs_copy(fs);
    world_must(omendb_close(db));
    crash_fs_destroy(fs);
    uint8_t *drops = calloc(count, 16);
    for (uint32_t i = 0; i < count; i++) {
        format_put32(drops + (size_t)i * 16, CHANGE_DROP);
        format_put64(drops + (size_t)i * 16 + 8, count - i);
    }
    log_append(copy, count + 1, drops, (size_t)count * 16);
    free(drops);
    return copy;
}

/* Seconds of the processor that it takes to replay that log, and to salvage what is left of it when
 * all that is created is lost; < 0: something is wrong. */
static double crowd_seconds(uint32_t count)
{
    struct crash_fs *disk = crowd_disk(count);
    struct crash_inode *log = two_phase_log(disk);
    omendb_options options;
    omendb *db = NULL;
    omendb_stats stats = OMENDB_STATS_INIT;
    omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
    world_options(disk, &options);
    options.read_only = 1;
    const clock_t begun = clock();
    int good = omendb_open("/db", &options, &db) == OMENDB_OK &&
               omendb_get_stats(db, &stats) == OMENDB_OK && stats.commits == count + 1 &&
               stats.collections == 0;
    good = omendb_close(db) == OMENDB_OK && good;
    uint64_t at = FORMAT_HEADER_BYTES;
    for (uint32_t i = 0; i < count; i++) {
        log->data[at + FORMAT_RECORD_CRC] ^= 1;
        at += FORMAT_RECORD_BYTES + format_align(format_get32(log->data + at), FORMAT_RECORD_ALIGN);
    }
    options.read_only = 0;
    good = good && omendb_salvage("/db", "/new", &options, NULL, NULL, &result) == OMENDB_OK &&
           result.problems == 1 && result.collections == 0;
    const double seconds = (double)(clock() - begun) / CLOCKS_PER_SEC;
    crash_fs_destroy(disk);
    return good ? seconds : -1.0;
}

/* Four times as many take about four times as long. */
TEST(collections_are_found_by_number_without_looking_at_all_of_them)
{
    const double few = crowd_seconds(5000), many = crowd_seconds(20000);
    CHECK(few >= 0.0 && many >= 0.0);
    printf("    5,000 collections: %.3f s, 20,000: %.3f s\n", few, many);
    CHECK(many < 9.0 * few + 0.2);
}

TEST_MAIN(
    an_undamaged_database_is_salvaged_whole,
    a_bad_block_of_vectors_costs_the_rows_in_it_and_no_others,
    each_bad_block_costs_at_most_what_has_bytes_in_it,
    ids_that_have_a_copy_or_follow_from_others_are_found_again,
    damaged_links_and_codes_cost_nothing, records_whose_deletions_are_lost_come_back_and_are_told,
    without_current_the_newest_manifest_is_taken, without_a_manifest_segments_are_found_by_name,
    an_older_manifest_still_tells_the_names, a_lost_segment_is_told_and_costs_its_rows_only,
    a_damaged_footer_is_used_where_it_makes_sense, commits_behind_a_hole_in_the_log_are_applied,
    a_damaged_last_commit_and_a_cut_log_are_told, automatic_ids_go_on_behind_those_of_before,
    the_new_database_answers_searches, wrong_calls_are_refused,
    a_directory_that_cannot_be_written_is_salvaged, any_damage_leaves_what_it_does_not_touch,
    ruins_are_no_danger, lack_of_memory_is_an_error_and_leaks_nothing, a_failing_device_is_told,
    prepared_transactions_wait_or_are_remembered_in_the_new_database,
    a_hole_in_the_log_costs_of_prepared_transactions_what_lay_in_it,
    what_waits_can_be_committed_where_its_records_are_lost,
    an_outcome_is_remembered_also_where_nothing_else_is_left,
    without_memory_no_prepared_transaction_is_passed_over,
    a_log_without_header_and_first_commit_gives_its_later_ones,
    a_log_without_header_is_not_taken_for_one_that_its_payload_quotes,
    a_log_without_header_has_the_id_that_most_of_its_bytes_name,
    a_log_of_nothing_but_zeros_is_no_loss,
    an_unreadable_sector_of_a_log_costs_the_commits_in_its_page,
    a_log_that_cannot_be_read_at_all_is_told, a_file_that_may_not_be_opened_costs_what_it_holds,
    a_prepared_transaction_of_many_deletes_waits_in_the_new_database,
    a_prepared_transaction_without_room_is_told_and_keeps_no_other_out,
    the_result_of_a_failed_salvage_is_what_is_there,
    collections_are_found_by_number_without_looking_at_all_of_them)
