/* fault_sections.c: the disk is full, or a file cannot be read, at one call after the other, while
 * a checkpoint or a merge writes sections of which each is larger than what the writer gathers: so
 * every section is met in its middle.
 *
 * Then must hold: the call says so; nothing that was stored is lost, and the handle takes more; the
 * next one that has the space writes what this one could not, and what a reopened database holds is
 * all that was put. */
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE 1

#include "crash_vfs.h"
#include "support.h"
#include "test.h"

#define SECTIONS_BATCH 1000

struct sections_world {
    struct crash_fs *fs;
    omendb *db;
    omendb_collection *collections[2];
    uint32_t dim;
    uint64_t rows; /* of each collection */
};

static int sections_open(struct sections_world *world)
{
    static const char *const names[] = {"a", "b"};
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.vfs = &world->fs->vfs;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.wal_limit = options.tail_limit = UINT64_C(1) << 32; /* nothing happens unasked */
    schema.dim = world->dim;
    schema.M = world->dim < 16 ? 4 : 64;
    schema.ef_construction = 8;
    int status = omendb_open("/db", &options, &world->db);
    for (int i = 0; i < 2 && status == OMENDB_OK; i++)
        status =
            omendb_collection_open_or_create(world->db, names[i], &schema, &world->collections[i]);
    return status;
}

static int sections_close(struct sections_world *world)
{
    for (int i = 0; i < 2; i++)
        omendb_collection_close(world->collections[i]);
    return omendb_close(world->db);
}

/* Few values, as the neighbours do not matter; the first two components tell the id. */
static void sections_vector(uint64_t id, uint32_t dim, float *vector)
{
    for (uint32_t i = 0; i < dim; i++)
        vector[i] = (float)(support_mix(id * 131 + i) % 8);
    vector[0] = (float)(id % 1024);
    vector[1] = (float)(id / 1024);
}

/* Descending ids, so that they need an index of their own. */
static int sections_put(struct sections_world *world, int collection, uint64_t from, uint64_t count)
{
    static float vectors[SECTIONS_BATCH * 512];
    static uint64_t ids[SECTIONS_BATCH];
    int status = OMENDB_OK;
    for (uint64_t at = 0; at < count && status == OMENDB_OK; at += SECTIONS_BATCH) {
        const uint64_t batch = count - at < SECTIONS_BATCH ? count - at : SECTIONS_BATCH;
        for (uint64_t i = 0; i < batch; i++) {
            ids[i] = from + count - 1 - at - i;
            sections_vector(ids[i], world->dim, vectors + i * world->dim);
        }
        status = omendb_put_batch(world->collections[collection], NULL, (size_t)batch, ids, vectors,
                                  OMENDB_F32, NULL);
    }
    return status;
}

/* Every record is there, with its vector. */
static int sections_are_whole(struct sections_world *world)
{
    float vector[512], expected[512];
    for (int i = 0; i < 2; i++) {
        omendb_rows *rows = NULL;
        uint64_t id = 0, next = 0;
        int status = omendb_scan(world->collections[i], NULL, 0, UINT64_MAX - 1, &rows);
        while (status == OMENDB_OK) {
            status = omendb_rows_next(rows, &id, OMENDB_F32, vector);
            if (status != OMENDB_OK)
                break;
            sections_vector(id, world->dim, expected);
            if (id != next++ || memcmp(vector, expected, world->dim * sizeof *vector) != 0)
                status = OMENDB_CORRUPT;
        }
        omendb_rows_close(rows);
        if (status != OMENDB_DONE || next != world->rows)
            return 0;
    }
    return 1;
}

struct sections_fault {
    int kinds, code, reason;
};

static const struct sections_fault sections_full = {CRASH_CALL_WRITE, OMENDB_FULL, ENOSPC};

/* Repeats `act`, of which the first call of the kind fails, then the second and so on, `most` times
 * at most; at last none fails. Returns how often it failed, or -1. */
static int sections_insist(struct sections_world *world, const struct sections_fault *fault,
                           uint64_t most, int (*act)(omendb *db))
{
    int failed = 0, status = fault->code;
    for (uint64_t at = 1; at <= most && status == fault->code; at++) {
        crash_faults_begin(world->fs, fault->kinds, at, 0, fault->code, fault->reason);
        status = act(world->db);
        failed += status != OMENDB_OK;
        if (status == OMENDB_OK && world->fs->faults.hits != 0)
            status = OMENDB_MISUSE; /* it failed, and nobody was told */
        world->fs->faults.kinds = 0;
    }
    if (status == fault->code)
        status = act(world->db);
    if (status == OMENDB_OK)
        return failed;
    fprintf(stderr, "after %d failures: %s (%s)\n", failed, omendb_strerror(status),
            omendb_errmsg());
    return -1;
}

static int sections_checkpoint(omendb *db)
{
    return omendb_checkpoint(db);
}

static int sections_optimize(omendb *db)
{
    return omendb_optimize(db, NULL, NULL);
}

static int sections_work(omendb *db)
{
    return omendb_work(db, UINT64_MAX, NULL);
}

static int sections_reopen(struct sections_world *world)
{
    struct crash_fs *copy = crash_fs_copy(world->fs);
    int status = sections_close(world);
    crash_fs_destroy(world->fs);
    world->fs = copy;
    return status == OMENDB_OK ? sections_open(world) : status;
}

static void sections_end(struct sections_world *world)
{
    CHECK_EQ_INT(sections_close(world), OMENDB_OK);
    CHECK_EQ_INT(world->fs->open_handles, 0);
    crash_fs_destroy(world->fs);
}

/* Ids, their sorted index and vectors of more than a megabyte each. */
TEST(a_full_disk_in_the_middle_of_the_ids_loses_nothing)
{
    struct sections_world world = {.fs = crash_fs_create(0), .dim = 2, .rows = 280000};
    CHECK_EQ_INT(sections_open(&world), OMENDB_OK);
    CHECK_EQ_INT(sections_put(&world, 0, 0, world.rows), OMENDB_OK);
    CHECK(sections_insist(&world, &sections_full, UINT64_MAX, sections_checkpoint) >= 6);
    CHECK_EQ_INT(sections_put(&world, 1, 0, world.rows), OMENDB_OK);
    CHECK(sections_are_whole(&world));
    CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
    CHECK_EQ_INT(sections_reopen(&world), OMENDB_OK);
    CHECK(sections_are_whole(&world));
    sections_end(&world);
}

/* Vectors, links and codes of more than a megabyte each, of two collections that are too large to
 * share a file. */
TEST(a_full_disk_in_the_middle_of_a_graph_loses_nothing)
{
    struct sections_world world = {.fs = crash_fs_create(0), .dim = 512, .rows = 2300};
    CHECK_EQ_INT(sections_open(&world), OMENDB_OK);
    CHECK_EQ_INT(sections_put(&world, 0, 0, world.rows), OMENDB_OK);
    CHECK_EQ_INT(sections_put(&world, 1, 0, world.rows), OMENDB_OK);
    CHECK_EQ_INT(sections_work(world.db), OMENDB_OK); /* links the rows */
    CHECK(sections_insist(&world, &sections_full, UINT64_MAX, sections_checkpoint) >= 6);
    CHECK(sections_are_whole(&world));
    CHECK_EQ_INT(sections_reopen(&world), OMENDB_OK);
    CHECK(sections_are_whole(&world));
    CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
    sections_end(&world);
}

TEST(a_full_disk_in_the_middle_of_a_merge_loses_nothing)
{
    struct sections_world world = {.fs = crash_fs_create(0), .dim = 512, .rows = 2300};
    CHECK_EQ_INT(sections_open(&world), OMENDB_OK);
    CHECK_EQ_INT(sections_put(&world, 0, 0, world.rows), OMENDB_OK);
    CHECK_EQ_INT(sections_put(&world, 1, 0, world.rows), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    CHECK(sections_insist(&world, &sections_full, 3, sections_optimize) == 3);
    CHECK(sections_are_whole(&world));
    CHECK_EQ_INT(sections_reopen(&world), OMENDB_OK);
    CHECK(sections_are_whole(&world));
    CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
    sections_end(&world);
}

/* As long as it is not the manifest, nothing is in doubt. */
TEST(a_file_that_cannot_be_made_is_made_by_the_next_checkpoint)
{
    struct sections_world world = {.fs = crash_fs_create(0), .dim = 512, .rows = 2300};
    CHECK_EQ_INT(sections_open(&world), OMENDB_OK);
    CHECK_EQ_INT(sections_put(&world, 0, 0, world.rows), OMENDB_OK);
    CHECK_EQ_INT(sections_put(&world, 1, 0, world.rows), OMENDB_OK);
    for (uint64_t at = 1; at <= 3; at++) {
        crash_faults_begin(world.fs, CRASH_CALL_OPEN, at, 0, OMENDB_IOERR, EMFILE);
        CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_IOERR);
        world.fs->faults.kinds = 0;
    }
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    CHECK(sections_are_whole(&world));
    CHECK_EQ_INT(sections_reopen(&world), OMENDB_OK);
    CHECK(sections_are_whole(&world));
    sections_end(&world);
}

/* The checkpoint opens what it wrote: a failure there is not one of the device. */
TEST(what_cannot_be_opened_again_is_written_again)
{
    struct sections_world world = {.fs = crash_fs_create(0), .dim = 512, .rows = 2300};
    int failed = 0;
    CHECK_EQ_INT(sections_open(&world), OMENDB_OK);
    for (uint64_t at = 1, hits = 1; hits != 0; at++) {
        CHECK_EQ_INT(sections_put(&world, 0, 0, world.rows), OMENDB_OK);
        CHECK_EQ_INT(sections_put(&world, 1, 0, world.rows), OMENDB_OK);
        crash_faults_begin(world.fs, CRASH_CALL_READ, at, 0, OMENDB_IOERR, EIO);
        const int status = omendb_checkpoint(world.db);
        hits = world.fs->faults.hits;
        world.fs->faults.kinds = 0;
        CHECK(status == OMENDB_OK || status == OMENDB_IOERR);
        failed += status != OMENDB_OK;
    }
    CHECK(failed > 2);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    CHECK(sections_are_whole(&world));
    CHECK_EQ_INT(sections_reopen(&world), OMENDB_OK);
    CHECK(sections_are_whole(&world));
    sections_end(&world);
}

TEST_MAIN(a_full_disk_in_the_middle_of_the_ids_loses_nothing,
          a_full_disk_in_the_middle_of_a_graph_loses_nothing,
          a_full_disk_in_the_middle_of_a_merge_loses_nothing,
          a_file_that_cannot_be_made_is_made_by_the_next_checkpoint,
          what_cannot_be_opened_again_is_written_again)
