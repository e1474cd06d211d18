/* test_id_index.c: the index of ids, from the bare model of a section to lookups and cursors of a
 * database: whatever the ids are, and whatever bytes stand where a model should be, what is there
 * is found and nothing else is. */
#include "internals.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "support.h"
#include "test.h"

#define INDEX_DIM  4
#define INDEX_ROWS 20000

/* ------------------------------------------------------------------------------------------------
 * ids of many kinds, ascending */

enum index_kind {
    INDEX_SEQUENTIAL,
    INDEX_RANDOM,
    INDEX_CLUSTERED,
    INDEX_STEPS, /* no line goes far */
    INDEX_FAR,   /* two runs at the ends of what an id can be */
    INDEX_EQUAL, /* of which some are there many times */
    INDEX_KINDS
};

static uint64_t index_next(enum index_kind kind, uint64_t before, uint32_t i,
                           struct support_random *random)
{
    switch (kind) {
    case INDEX_SEQUENTIAL:
        return before + 1;
    case INDEX_RANDOM:
        return before + 1 + support_below(random, UINT64_MAX / (INDEX_ROWS + 1) - 1);
    case INDEX_CLUSTERED:
        return before + (support_below(random, 300) == 0 ? UINT64_C(1) << 40 : 2);
    case INDEX_STEPS:
        return before + (i / 18 % 2 == 1 ? 1 : UINT64_C(1) << (8 + i / 18 % 20));
    case INDEX_FAR:
        return i == INDEX_ROWS / 2 ? UINT64_MAX - INDEX_ROWS : before + 1;
    default:
        return before + (support_below(random, 100) == 0);
    }
}

static void index_make(enum index_kind kind, uint64_t *ids)
{
    struct support_random random = {support_seed(5) + kind};
    uint64_t id = 0;
    for (uint32_t i = 0; i < INDEX_ROWS; i++)
        ids[i] = id = i == 0 ? kind % 2 : index_next(kind, id, i, &random);
}

static uint32_t index_first(const uint64_t *ids, uint64_t id)
{
    uint32_t first = 0;
    for (uint32_t step = UINT32_C(1) << 15; step != 0; step /= 2)
        if (first + step <= INDEX_ROWS && ids[first + step - 1] < id)
            first += step;
    return first;
}

/* ------------------------------------------------------------------------------------------------
 * the bare model */

static struct {
    struct memory memory;
    struct idmodel model;
    uint64_t ids[INDEX_ROWS];
    uint8_t *bytes;
    size_t size;
} bare;

static int bare_begin(enum index_kind kind)
{
    struct idmodel_builder builder;
    memory_init(&bare.memory, NULL, 0);
    index_make(kind, bare.ids);
    idmodel_begin(&builder, &bare.memory);
    for (uint32_t i = 0; i < INDEX_ROWS; i++)
        idmodel_add(&builder, bare.ids[i]);
    bare.bytes = idmodel_finish(&builder, &bare.size);
    idmodel_end(&builder);
    return bare.bytes != NULL && idmodel_open(&bare.model, bare.bytes, bare.size, INDEX_ROWS) &&
           idmodel_is_usable(&bare.model);
}

static void bare_end(void)
{
    memory_free(&bare.memory, bare.bytes, bare.size);
    if (atomic_load(&bare.memory.used) != 0)
        test_failures++;
}

/* Whether the window has the place of the first id that is not below. */
static int bare_finds(uint64_t id)
{
    uint32_t place = index_first(bare.ids, id), first = idmodel_window(&bare.model, id);
    return first <= INDEX_ROWS - IDMODEL_WINDOW && place >= first &&
           place - first <= IDMODEL_WINDOW && first + idmodel_search(bare.ids + first, id) == place;
}

TEST(a_model_tells_the_place_of_every_id_and_of_those_between_them)
{
    for (enum index_kind kind = 0; kind < INDEX_EQUAL; kind++) {
        CHECK(bare_begin(kind));
        for (uint32_t i = 0; i < INDEX_ROWS; i++) {
            CHECK(bare_finds(bare.ids[i]));
            CHECK(bare_finds(bare.ids[i] + 1));
            CHECK(bare.ids[i] == 0 || bare_finds(bare.ids[i] - 1));
        }
        CHECK(bare_finds(0) && bare_finds(UINT64_MAX - 1) && bare_finds(UINT64_MAX));
        CHECK(idmodel_check(&bare.model, bare.ids) == NULL);
        bare_end();
    }
}

TEST(of_equal_ids_a_model_tells_the_first)
{
    CHECK(bare_begin(INDEX_EQUAL));
    for (uint32_t i = 0; i < INDEX_ROWS; i++)
        CHECK(bare_finds(bare.ids[i]));
    CHECK(idmodel_check(&bare.model, bare.ids) == NULL);
    bare_end();
}

TEST(ids_in_a_line_need_one_piece_and_no_ids_need_many)
{
    CHECK(bare_begin(INDEX_SEQUENTIAL));
    CHECK_EQ_INT(bare.model.pieces, 1);
    bare_end();
    CHECK(bare_begin(INDEX_FAR));
    CHECK(bare.model.pieces <= 3);
    bare_end();
    CHECK(bare_begin(INDEX_STEPS));
    CHECK(bare.model.pieces > 100 && bare.model.pieces < INDEX_ROWS / IDMODEL_REACH);
    bare_end();
}

TEST(a_section_of_another_length_is_no_model)
{
    struct idmodel model;
    CHECK(bare_begin(INDEX_STEPS));
    for (uint64_t length = 0; length < bare.size + 200; length++) {
        int opened = idmodel_open(&model, bare.bytes, length, INDEX_ROWS);
        CHECK(opened == (model.bytes != NULL));
        CHECK(!opened || model.pieces != bare.model.pieces || length == bare.size);
        CHECK(!opened || length >= bare.size || !idmodel_is_usable(&model));
    }
    CHECK(!idmodel_open(&model, bare.bytes, UINT64_MAX, INDEX_ROWS));
    CHECK(!idmodel_open(&model, bare.bytes, bare.size, 5)); /* more pieces than rows */
    bare_end();
}

/* Numbers that no model has: every one is asked for a window, which must lie inside the ids. */
TEST(whatever_the_bytes_of_a_model_are_its_windows_lie_inside)
{
    static const uint64_t odd[] = {0,
                                   1,
                                   UINT64_C(1) << 63,
                                   UINT64_MAX,
                                   UINT64_C(0x7ff0) << 48,
                                   UINT64_C(0xfff8) << 48,
                                   UINT64_C(0x7fef) << 48};
    struct support_random random = {support_seed(77)};
    CHECK(bare_begin(INDEX_STEPS));
    uint8_t *good = malloc(bare.size);
    CHECK(good != NULL);
    memcpy(good, bare.bytes, bare.size);
    for (uint64_t round = 0; round < support_scaled(3000, 300); round++) {
        memcpy(bare.bytes, good, bare.size);
        for (uint64_t i = support_below(&random, 60); i-- > 0;) {
            size_t at = support_below(&random, bare.size / 8) * 8;
            uint64_t value = support_below(&random, 2) == 0 ? support_next(&random)
                                                            : odd[support_below(&random, 7)];
            memcpy(bare.bytes + at, &value, 8);
        }
        for (uint32_t i = 0; i < 50; i++) {
            uint64_t id =
                i % 2 == 0 ? support_next(&random) : bare.ids[support_below(&random, INDEX_ROWS)];
            CHECK(idmodel_window(&bare.model, id) <= INDEX_ROWS - IDMODEL_WINDOW);
        }
        (void)idmodel_check(&bare.model, bare.ids);
    }
    free(good);
    bare_end();
}

TEST(a_check_tells_what_is_wrong_with_a_model)
{
    const char *wrong;
    CHECK(bare_begin(INDEX_STEPS));
    size_t line = bare.model.lines + 5 * FORMAT_LINE_BYTES;
    uint32_t place = format_get32(bare.bytes + line + FORMAT_LINE_PLACE);
    format_put32(bare.bytes + line + FORMAT_LINE_PLACE, place + 100);
    wrong = idmodel_check(&bare.model, bare.ids);
    CHECK(wrong != NULL && strstr(wrong, "lead to an id") != NULL);
    format_put32(bare.bytes + line + FORMAT_LINE_PLACE, place);
    format_put64(bare.bytes + bare.model.offsets[1] - 8, 5);
    wrong = idmodel_check(&bare.model, bare.ids);
    CHECK(wrong != NULL && (strstr(wrong, "too many") != NULL || strstr(wrong, "ascend") != NULL));
    bare_end();
    CHECK(bare_begin(INDEX_STEPS));
    format_put64(bare.bytes + bare.model.offsets[1] + 8, 5);
    wrong = idmodel_check(&bare.model, bare.ids);
    CHECK(wrong != NULL && strstr(wrong, "first of its node") != NULL);
    format_put32(bare.bytes + FORMAT_MODEL_REACH, 8);
    CHECK_EQ_STR(idmodel_check(&bare.model, bare.ids), "is none");
    CHECK(!idmodel_is_usable(&bare.model));
    bare_end();
}

TEST(without_memory_or_for_a_few_ids_there_is_no_model)
{
    struct idmodel_builder builder;
    struct memory memory;
    size_t size;
    memory_init(&memory, NULL, 0);
    idmodel_begin(&builder, &memory);
    for (uint32_t i = 0; i < IDMODEL_MIN_ROWS - 1; i++)
        idmodel_add(&builder, i);
    CHECK(idmodel_finish(&builder, &size) == NULL);
    idmodel_end(&builder);
    for (uint64_t limit = 100; limit < 60000; limit += 7000) {
        memory_init(&memory, NULL, limit);
        index_make(INDEX_STEPS, bare.ids);
        idmodel_begin(&builder, &memory);
        for (uint32_t i = 0; i < INDEX_ROWS; i++)
            idmodel_add(&builder, bare.ids[i]);
        uint8_t *bytes = idmodel_finish(&builder, &size);
        CHECK(limit > 20000 || bytes == NULL);
        memory_free(&memory, bytes, bytes == NULL ? 0 : size);
        idmodel_end(&builder);
        CHECK_EQ_INT(atomic_load(&memory.used), 0);
    }
}

/* ------------------------------------------------------------------------------------------------
 * a database: two segments, a memtable, deleted and replaced records */

static struct {
    char path[4096];
    omendb *db;
    omendb_collection *docs;
    struct version *version;
    uint64_t ids[INDEX_ROWS]; /* in the order of adding */
} world;

static int world_open(uint32_t io)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.threads = 0;
    options.io = io;
    options.sync = OMENDB_SYNC_OFF;
    options.tail_limit = UINT64_C(1) << 30;
    schema.dim = INDEX_DIM;
    schema.M = 2;
    schema.ef_construction = 8;
    int code = omendb_open(world.path, &options, &world.db);
    if (code == OMENDB_OK)
        code = omendb_collection_open_or_create(world.db, "docs", &schema, &world.docs);
    if (code == OMENDB_OK)
        world.version = version_acquire(world.docs->collection);
    return code;
}

static int world_close(void)
{
    version_release(world.version);
    omendb_collection_close(world.docs);
    world.version = NULL;
    return omendb_close(world.db);
}

/* Ids of the first and the last third of the order go to segments, the others stay in memory. */
static int world_add(uint32_t first, uint32_t count)
{
    static float vectors[INDEX_ROWS * INDEX_DIM];
    for (uint32_t i = 0; i < count; i++)
        support_vector(world.ids[first + i], INDEX_DIM, vectors + i * INDEX_DIM);
    return omendb_add_batch(world.docs, NULL, count, world.ids + first, vectors, OMENDB_F32, NULL);
}

static uint64_t world_id(uint32_t i)
{
    return i * UINT64_C(3) + (i > INDEX_ROWS / 2 ? UINT64_C(1) << 50 : 0);
}

/* in_segments: the first of them lie in two segments. */
static int world_begin(const char *name, uint32_t in_segments, uint32_t io)
{
    struct support_random random = {support_seed(9)};
    memset(&world, 0, sizeof world);
    snprintf(world.path, sizeof world.path, "%s", support_path(name));
    for (uint32_t i = 0; i < INDEX_ROWS; i++)
        world.ids[i] = world_id(i);
    for (uint32_t i = INDEX_ROWS; i-- > 1;) {
        uint32_t other = (uint32_t)support_below(&random, i + 1);
        uint64_t id = world.ids[i];
        world.ids[i] = world.ids[other];
        world.ids[other] = id;
    }
    int code = world_open(io);
    for (uint32_t part = 0; part < 2 && code == OMENDB_OK; part++) {
        code = world_add(in_segments / 2 * part, in_segments / 2);
        if (code == OMENDB_OK)
            code = omendb_checkpoint(world.db);
    }
    if (code == OMENDB_OK && in_segments < INDEX_ROWS)
        code = world_add(in_segments, INDEX_ROWS - in_segments);
    version_release(world.version);
    world.version = version_acquire(world.docs->collection);
    return code;
}

static int world_has(uint64_t id)
{
    float vector[INDEX_DIM], expected[INDEX_DIM];
    int code = omendb_get(world.docs, NULL, id, OMENDB_F32, vector);
    support_vector(id, INDEX_DIM, expected);
    return code == OMENDB_OK && memcmp(vector, expected, sizeof vector) == 0 ? 1
           : code == OMENDB_NOTFOUND                                         ? 0
                                                                             : -1;
}

/* Of all ids and of those beside them: by one call each, and by the batch. */
static int world_is_right(void)
{
    static uint64_t asked[2 * INDEX_ROWS];
    static float vectors[2 * INDEX_ROWS * INDEX_DIM];
    static uint8_t found[2 * INDEX_ROWS];
    float expected[INDEX_DIM];
    for (uint32_t i = 0; i < 2 * INDEX_ROWS; i++)
        asked[i] = world.ids[i / 2] + i % 2;
    memset(vectors, 0, sizeof vectors);
    if (omendb_get_batch(world.docs, NULL, 2 * INDEX_ROWS, asked, OMENDB_F32, vectors, found) !=
        OMENDB_OK)
        return 0;
    for (uint32_t i = 0; i < 2 * INDEX_ROWS; i++) {
        memset(expected, 0, sizeof expected);
        if (i % 2 == 0)
            support_vector(asked[i], INDEX_DIM, expected);
        if (found[i] != (i % 2 == 0) ||
            memcmp(expected, vectors + i * INDEX_DIM, sizeof expected) != 0 ||
            world_has(asked[i]) != (i % 2 == 0))
            return 0;
    }
    return 1;
}

/* A cursor from each of some ids on shows all that follow. */
static int world_scans(uint32_t from, uint32_t to)
{
    float vector[INDEX_DIM], expected[INDEX_DIM];
    omendb_rows *rows = NULL;
    uint64_t id;
    uint32_t next = from;
    int code = omendb_scan(world.docs, NULL, world_id(from), world_id(to), &rows);
    while (code == OMENDB_OK) {
        code = omendb_rows_next(rows, &id, OMENDB_F32, next % 2 == 0 ? NULL : vector);
        support_vector(id, INDEX_DIM, expected);
        if (code == OMENDB_OK && (id != world_id(next) ||
                                  (next % 2 == 1 && memcmp(vector, expected, sizeof vector) != 0)))
            code = OMENDB_MISMATCH;
        next += code == OMENDB_OK;
    }
    omendb_rows_close(rows);
    return code == OMENDB_DONE && next == to + 1;
}

TEST(records_are_found_wherever_they_lie)
{
    CHECK_EQ_INT(world_begin("found", INDEX_ROWS / 2, OMENDB_IO_MAP), OMENDB_OK);
    CHECK_EQ_INT(world.version->segment_count, 2);
    CHECK(world.version->segments[0]->model.bytes != NULL);
    CHECK(world_is_right());
    CHECK(world_scans(0, INDEX_ROWS - 1));
    CHECK(world_scans(7000, 7000));
    CHECK(world_scans(INDEX_ROWS / 2 - 20, INDEX_ROWS / 2 + 20));
    CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
    CHECK_EQ_INT(world_close(), OMENDB_OK);
}

/* As in files that were written before there were models. */
TEST(without_a_model_all_is_found_by_halves)
{
    CHECK_EQ_INT(world_begin("halves", INDEX_ROWS, OMENDB_IO_MAP), OMENDB_OK);
    for (uint32_t i = 0; i < world.version->segment_count; i++)
        atomic_store(&world.version->segments[i]->model_state, SEGMENT_MODEL_NONE);
    CHECK(world_is_right());
    CHECK(world_scans(0, INDEX_ROWS - 1));
    CHECK_EQ_INT(world_close(), OMENDB_OK);
}

/* Its blocks are memory of the process where they are read, so a test can write there. */
static void world_spoil(struct segment *segment, struct support_random *random)
{
    uint8_t *bytes = (uint8_t *)(uintptr_t)segment->model.bytes;
    for (uint64_t i = 0; i < 200; i++) {
        size_t at =
            FORMAT_MODEL_KEYS +
            support_below(random, (segment->model_range.length - FORMAT_MODEL_KEYS) / 8) * 8;
        uint64_t value = support_next(random) >> support_below(random, 64);
        memcpy(bytes + at, &value, 8);
    }
}

TEST(a_model_that_lies_costs_time_and_no_answer)
{
    struct support_random random = {support_seed(3)};
    uint64_t problems = 0;
    struct support_report report = {"the model of its ids", 0, 0};
    CHECK_EQ_INT(world_begin("lies", INDEX_ROWS, OMENDB_IO_PREAD), OMENDB_OK);
    CHECK(world_is_right());
    for (uint64_t round = 0; round < 5; round++) {
        for (uint32_t i = 0; i < world.version->segment_count; i++)
            world_spoil(world.version->segments[i], &random);
        CHECK(world_is_right());
        CHECK(world_scans(100, 19000));
    }
    CHECK_EQ_INT(omendb_check(world.db, support_note, &report, &problems), OMENDB_OK);
    CHECK_EQ_INT(report.told, 2);
    CHECK_EQ_INT(problems, 2);
    CHECK_EQ_INT(world_close(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * batches */

TEST(a_batch_without_places_for_what_is_missing_wants_all)
{
    static float vectors[INDEX_ROWS * INDEX_DIM];
    uint64_t ids[3] = {world_id(3), world_id(4), 1};
    uint8_t found[3] = {9, 9, 9};
    CHECK_EQ_INT(world_begin("all", INDEX_ROWS / 2, OMENDB_IO_MAP), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_batch(world.docs, NULL, 2, ids, OMENDB_F32, vectors, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_batch(world.docs, NULL, 2, ids, OMENDB_F32, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_batch(world.docs, NULL, INDEX_ROWS, world.ids, OMENDB_F32, NULL, NULL),
                 OMENDB_OK);
    CHECK_EQ_INT(omendb_get_batch(world.docs, NULL, 3, ids, OMENDB_F32, vectors, NULL),
                 OMENDB_NOTFOUND);
    CHECK(strstr(omendb_errmsg(), "id 1 ") != NULL);
    CHECK_EQ_INT(omendb_get_batch(world.docs, NULL, 3, ids, OMENDB_F32, NULL, found), OMENDB_OK);
    CHECK(found[0] == 1 && found[1] == 1 && found[2] == 0);
    CHECK_EQ_INT(omendb_get_batch(world.docs, NULL, 3, NULL, OMENDB_F32, NULL, found),
                 OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_get_batch(world.docs, NULL, 0, NULL, OMENDB_F32, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_batch(world.docs, NULL, 3, ids, 77, NULL, found), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_get_batch(world.docs, NULL, 3, ids, OMENDB_I8, vectors, found),
                 OMENDB_INVALID);
    CHECK_EQ_INT(world_close(), OMENDB_OK);
}

TEST(a_batch_sees_what_its_transaction_sees)
{
    float vectors[5 * INDEX_DIM], expected[INDEX_DIM];
    uint64_t ids[5] = {world_id(1), world_id(2), 1, world_id(3), world_id(4)};
    uint8_t found[5];
    omendb_txn *txn = NULL;
    CHECK_EQ_INT(world_begin("own", INDEX_ROWS, OMENDB_IO_MAP), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(world.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(world.docs, NULL, world_id(4)), OMENDB_OK); /* by another, later */
    CHECK_EQ_INT(omendb_delete(world.docs, txn, world_id(1)), OMENDB_OK);
    CHECK_EQ_INT(support_put(world.docs, txn, world_id(2), 1000, INDEX_DIM), OMENDB_OK);
    CHECK_EQ_INT(support_put(world.docs, txn, 1, 2000, INDEX_DIM), OMENDB_OK);
    memset(vectors, 0, sizeof vectors);
    CHECK_EQ_INT(omendb_get_batch(world.docs, txn, 5, ids, OMENDB_F32, vectors, found), OMENDB_OK);
    CHECK(found[0] == 0 && found[1] == 1 && found[2] == 1 && found[3] == 1 && found[4] == 1);
    CHECK(vectors[0] == 0.0f);
    support_vector(2000, INDEX_DIM, expected);
    CHECK(memcmp(vectors + 2 * INDEX_DIM, expected, sizeof expected) == 0);
    CHECK_EQ_INT(omendb_get(world.docs, txn, world_id(1), OMENDB_F32, NULL), OMENDB_NOTFOUND);
    CHECK_EQ_INT(omendb_get(world.docs, txn, 1, OMENDB_F32, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_batch(world.docs, NULL, 5, ids, OMENDB_F32, NULL, found), OMENDB_OK);
    CHECK(found[0] == 1 && found[1] == 1 && found[2] == 0 && found[3] == 1 && found[4] == 0);
    omendb_txn_rollback(txn);
    CHECK_EQ_INT(world_close(), OMENDB_OK);
}

/* The older rows of an id lie before the newer ones, in one segment. */
TEST(of_replaced_records_each_reader_finds_its_own)
{
    omendb_txn *readers[40];
    CHECK_EQ_INT(world_begin("replaced", 0, OMENDB_IO_MAP), OMENDB_OK);
    for (uint64_t i = 0; i < 40; i++) {
        CHECK_EQ_INT(support_put(world.docs, NULL, world_id(9), i, INDEX_DIM), OMENDB_OK);
        CHECK_EQ_INT(omendb_txn_begin(world.db, OMENDB_READ_ONLY, &readers[i]), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    for (uint64_t i = 0; i < 40; i++) {
        float vector[INDEX_DIM], expected[INDEX_DIM];
        uint64_t id = world_id(9);
        support_vector(i, INDEX_DIM, expected);
        CHECK_EQ_INT(omendb_get(world.docs, readers[i], id, OMENDB_F32, vector), OMENDB_OK);
        CHECK(memcmp(vector, expected, sizeof vector) == 0);
        memset(vector, 0, sizeof vector);
        CHECK_EQ_INT(omendb_get_batch(world.docs, readers[i], 1, &id, OMENDB_F32, vector, NULL),
                     OMENDB_OK);
        CHECK(memcmp(vector, expected, sizeof vector) == 0);
        omendb_txn_rollback(readers[i]);
    }
    CHECK_EQ_INT(world_close(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * cursors */

TEST(a_cursor_over_sealed_records_takes_no_memory_for_each)
{
    omendb_rows *rows = NULL;
    CHECK_EQ_INT(world_begin("little", INDEX_ROWS, OMENDB_IO_MAP), OMENDB_OK);
    const uint64_t before = atomic_load(&world.db->memory.used);
    CHECK_EQ_INT(omendb_scan(world.docs, NULL, 0, UINT64_MAX - 1, &rows), OMENDB_OK);
    CHECK(atomic_load(&world.db->memory.used) - before < 2000);
    omendb_rows_close(rows);
    CHECK_EQ_INT(atomic_load(&world.db->memory.used), before);
    CHECK_EQ_INT(world_close(), OMENDB_OK);
}

/* Whether they show a record or not, it is not lost: it was there when the cursor was opened. */
TEST(what_a_transaction_replaces_after_it_opened_a_cursor_is_not_lost)
{
    omendb_rows *rows = NULL;
    omendb_txn *txn = NULL;
    uint64_t id, seen = 0;
    CHECK_EQ_INT(world_begin("later", INDEX_ROWS, OMENDB_IO_MAP), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(world.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(support_put(world.docs, txn, world_id(5), 1, INDEX_DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(world.docs, txn, 0, UINT64_MAX - 1, &rows), OMENDB_OK);
    for (uint32_t i = 0; i < 100; i++)
        CHECK_EQ_INT(support_put(world.docs, txn, world_id(i * 100), i, INDEX_DIM), OMENDB_OK);
    while (omendb_rows_next(rows, &id, OMENDB_F32, NULL) == OMENDB_OK)
        CHECK_EQ_INT(id, world_id((uint32_t)seen++));
    CHECK_EQ_INT(seen, INDEX_ROWS);
    omendb_rows_close(rows);
    omendb_txn_rollback(txn);
    CHECK_EQ_INT(world_close(), OMENDB_OK);
}

TEST(a_cursor_shows_what_others_delete_and_merge_away)
{
    omendb_rows *rows = NULL;
    uint64_t id;
    uint32_t seen = 0;
    CHECK_EQ_INT(world_begin("gone", INDEX_ROWS, OMENDB_IO_MAP), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(world.docs, NULL, 0, UINT64_MAX - 1, &rows), OMENDB_OK);
    for (; seen < 1000; seen++)
        CHECK_EQ_INT(omendb_rows_next(rows, &id, OMENDB_F32, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete_batch(world.docs, NULL, INDEX_ROWS / 2, world.ids, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    while (omendb_rows_next(rows, &id, OMENDB_F32, NULL) == OMENDB_OK)
        CHECK_EQ_INT(id, world_id(seen++));
    CHECK_EQ_INT(seen, INDEX_ROWS);
    omendb_rows_close(rows);
    CHECK_EQ_INT(omendb_scan(world.docs, NULL, 0, UINT64_MAX - 1, &rows), OMENDB_OK);
    for (seen = 0; omendb_rows_next(rows, &id, OMENDB_F32, NULL) == OMENDB_OK; seen++)
        ;
    CHECK_EQ_INT(seen, INDEX_ROWS / 2);
    omendb_rows_close(rows);
    CHECK_EQ_INT(world_close(), OMENDB_OK);
}

/* One byte of a block that holds ascending ids, with the database closed. */
static int world_damage(const struct section_range *range, uint64_t place, uint64_t number)
{
    char path[5000];
    uint8_t byte = 0;
    snprintf(path, sizeof path, "%s/seg-%llu", world.path, (unsigned long long)number);
    int file = open(path, O_RDWR);
    off_t at = (off_t)(range->offset + place * 8);
    int good = pread(file, &byte, 1, at) == 1;
    byte ^= 1;
    good = good && pwrite(file, &byte, 1, at) == 1;
    return close(file) == 0 && good;
}

TEST(a_cursor_stops_at_damaged_ids_and_one_from_later_on_goes_on_behind_them)
{
    omendb_rows *rows = NULL;
    uint64_t id = 0, last = 0, seen = 0;
    CHECK_EQ_INT(world_begin("damaged", INDEX_ROWS, OMENDB_IO_MAP), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(world.db, NULL, NULL), OMENDB_OK);
    version_release(world.version);
    world.version = version_acquire(world.docs->collection);
    CHECK_EQ_INT(world.version->segment_count, 1);
    const struct section_range range = world.version->segments[0]->ascending;
    const uint64_t number = world.version->segments[0]->file->file->number;
    CHECK_EQ_INT(world_close(), OMENDB_OK);
    CHECK(world_damage(&range, INDEX_ROWS / 2, number));
    CHECK_EQ_INT(world_open(OMENDB_IO_MAP), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(world.docs, NULL, 0, UINT64_MAX - 1, &rows), OMENDB_OK);
    while (omendb_rows_next(rows, &id, OMENDB_F32, NULL) == OMENDB_OK) {
        last = id;
        CHECK_EQ_INT(id, world_id((uint32_t)seen++));
    }
    CHECK(seen > 0 && seen <= INDEX_ROWS / 2 && last == world_id((uint32_t)seen - 1));
    for (int i = 0; i < 2; i++)
        CHECK_EQ_INT(omendb_rows_next(rows, &id, OMENDB_F32, NULL), OMENDB_CORRUPT);
    omendb_rows_close(rows);
    CHECK(world_scans(INDEX_ROWS - 3000, INDEX_ROWS - 1));
    CHECK_EQ_INT(omendb_scan(world.docs, NULL, world_id(INDEX_ROWS / 2), UINT64_MAX - 1, &rows),
                 OMENDB_CORRUPT);
    CHECK(rows == NULL);
    CHECK_EQ_INT(world_has(world_id(INDEX_ROWS / 2)), -1);
    CHECK_EQ_INT(world_close(), OMENDB_OK);
}

TEST_MAIN(a_model_tells_the_place_of_every_id_and_of_those_between_them,
          of_equal_ids_a_model_tells_the_first, ids_in_a_line_need_one_piece_and_no_ids_need_many,
          a_section_of_another_length_is_no_model,
          whatever_the_bytes_of_a_model_are_its_windows_lie_inside,
          a_check_tells_what_is_wrong_with_a_model,
          without_memory_or_for_a_few_ids_there_is_no_model, records_are_found_wherever_they_lie,
          without_a_model_all_is_found_by_halves, a_model_that_lies_costs_time_and_no_answer,
          a_batch_without_places_for_what_is_missing_wants_all,
          a_batch_sees_what_its_transaction_sees, of_replaced_records_each_reader_finds_its_own,
          a_cursor_over_sealed_records_takes_no_memory_for_each,
          what_a_transaction_replaces_after_it_opened_a_cursor_is_not_lost,
          a_cursor_shows_what_others_delete_and_merge_away,
          a_cursor_stops_at_damaged_ids_and_one_from_later_on_goes_on_behind_them)
