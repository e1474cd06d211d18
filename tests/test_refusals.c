/* test_refusals.c: every public call names what is wrong with each of its arguments, and does
 * without those that need not be given.
 *
 * A handle that is none is a block of zeroes: what a closed handle's memory may look like. */
#define _DEFAULT_SOURCE 1 /* lstat, mkdtemp */

#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <sys/wait.h>

#include "support.h"
#include "test.h"

#define REFUSALS_DIM 4

static omendb *refusals_db;
static omendb_collection *refusals_docs;

/* What handles that are none point to. */
static union {
    uint64_t align;
    unsigned char bytes[1024];
} refusals_zeroes;

static int refusals_blocks; /* of memory that databases hold */

static void *refusals_alloc(void *context, size_t size)
{
    (void)context;
    void *block = malloc(size);
    refusals_blocks += block != NULL;
    return block;
}

static void *refusals_resize(void *context, void *memory, size_t old_size, size_t new_size)
{
    (void)context;
    (void)old_size;
    return realloc(memory, new_size);
}

static void refusals_release(void *context, void *memory, size_t size)
{
    (void)context;
    (void)size;
    refusals_blocks -= memory != NULL;
    free(memory);
}

static const omendb_allocator refusals_allocator = {sizeof refusals_allocator, NULL, refusals_alloc,
                                                    refusals_resize, refusals_release};

static int refusals_open(const char *path, omendb **db)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.allocator = &refusals_allocator;
    return omendb_open(path, &options, db) == OMENDB_OK;
}

/* A database in memory with ten records. 1 when all went well. */
static int refusals_begin(void)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = REFUSALS_DIM;
    if (!refusals_open(":memory:", &refusals_db))
        return 0;
    int status = omendb_collection_create(refusals_db, "docs", &schema, &refusals_docs);
    for (uint64_t id = 0; id < 10 && status == OMENDB_OK; id++)
        status = support_put(refusals_docs, NULL, id, id + 1, REFUSALS_DIM);
    return status == OMENDB_OK;
}

static int refusals_end(void)
{
    omendb_collection_close(refusals_docs);
    return omendb_close(refusals_db);
}

/* 1 where the code is the expected one and the sentence has the word. */
static int refusals_is(int status, int expected, const char *word)
{
    if (status == expected && strstr(omendb_errmsg(), word) != NULL)
        return 1;
    fprintf(stderr, "    got %s (%s), expected %s with \"%s\"\n", omendb_strerror(status),
            omendb_errmsg(), omendb_strerror(expected), word);
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * handles */

TEST(what_is_no_handle_is_misuse)
{
    omendb *db = (omendb *)(void *)&refusals_zeroes;
    omendb_collection *collection = (omendb_collection *)(void *)&refusals_zeroes;
    omendb_txn *txn = (omendb_txn *)(void *)&refusals_zeroes;
    omendb_rows *rows = (omendb_rows *)(void *)&refusals_zeroes;
    uint64_t count = 77;

    CHECK(refusals_begin());
    CHECK(refusals_is(omendb_close(db), OMENDB_MISUSE, "not an open database"));
    CHECK(refusals_is(omendb_checkpoint(db), OMENDB_MISUSE, "not an open database"));
    CHECK(refusals_is(omendb_count(collection, NULL, &count), OMENDB_MISUSE, "collection"));
    CHECK(refusals_is(omendb_count(refusals_docs, txn, &count), OMENDB_MISUSE, "txn"));
    CHECK_EQ_INT(count, 77);
    CHECK(refusals_is(omendb_txn_commit(txn), OMENDB_MISUSE, "transaction"));
    CHECK(refusals_is(omendb_rows_next(rows, NULL, OMENDB_F32, NULL), OMENDB_MISUSE, "cursor"));
    omendb_release(db);
    omendb_collection_close(collection);
    omendb_txn_rollback(txn);
    omendb_rows_close(rows);
    for (size_t i = 0; i < sizeof refusals_zeroes.bytes; i++)
        CHECK_EQ_INT(refusals_zeroes.bytes[i], 0);
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

TEST(null_is_closed_without_a_word)
{
    char before[512];
    CHECK_EQ_INT(omendb_open("", NULL, &refusals_db), OMENDB_INVALID);
    snprintf(before, sizeof before, "%s", omendb_errmsg());
    CHECK_EQ_INT(omendb_close(NULL), OMENDB_OK);
    omendb_release(NULL);
    omendb_collection_close(NULL);
    omendb_txn_rollback(NULL);
    omendb_rows_close(NULL);
    omendb_options_init(NULL);
    omendb_schema_init(NULL);
    omendb_record_init(NULL);
    omendb_query_init(NULL);
    omendb_explain_init(NULL);
    omendb_stats_init(NULL);
    omendb_collection_stats_init(NULL);
    CHECK_EQ_STR(omendb_errmsg(), before);
}

/* Each kind of child may be the last, and frees the database then. */
TEST(a_released_database_is_freed_by_its_last_child)
{
    for (int kind = 0; kind < 4; kind++) {
        omendb_txn *txn = NULL;
        omendb_rows *rows = NULL;
        CHECK(refusals_begin());
        if (kind == 1)
            CHECK_EQ_INT(omendb_txn_begin(refusals_db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
        if (kind == 2)
            CHECK_EQ_INT(omendb_scan(refusals_docs, NULL, 0, 5, &rows), OMENDB_OK);
        if (kind == 3)
            omendb_collection_close(refusals_docs);
        omendb_release(refusals_db);
        if (kind != 3) {
            CHECK(refusals_is(omendb_checkpoint(refusals_db), OMENDB_MISUSE, "released"));
            CHECK(refusals_is(omendb_close(refusals_db), OMENDB_MISUSE, "not an open"));
            CHECK(refusals_blocks > 0);
            omendb_collection_close(refusals_docs);
            omendb_txn_rollback(txn);
            omendb_rows_close(rows);
        }
        CHECK_EQ_INT(refusals_blocks, 0);
    }
}

TEST(every_call_on_a_dropped_collection_says_that_it_was)
{
    float vectors[64 * REFUSALS_DIM] = {1};
    omendb_record record = OMENDB_RECORD_INIT;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    omendb_rows *rows = NULL;
    uint64_t ids[10] = {1}, number;
    size_t count;
    record.vector = vectors;
    query.vector = vectors;
    CHECK(refusals_begin());
    CHECK_EQ_INT(omendb_collection_drop(refusals_db, "docs"), OMENDB_OK);
    const int codes[] = {
        omendb_collection_schema(refusals_docs, &schema),
        omendb_collection_get_stats(refusals_docs, &stats),
        omendb_add(refusals_docs, NULL, &record, NULL),
        omendb_put_batch(refusals_docs, NULL, 1, ids, vectors, OMENDB_F32, NULL),
        omendb_delete_batch(refusals_docs, NULL, 1, ids, NULL),
        omendb_get(refusals_docs, NULL, 1, OMENDB_F32, vectors),
        omendb_count(refusals_docs, NULL, &number),
        omendb_scan(refusals_docs, NULL, 0, 1, &rows),
        omendb_search(refusals_docs, NULL, &query, ids, NULL, &count),
        omendb_search_batch(refusals_docs, NULL, &query, vectors, 1, ids, NULL, NULL),
        omendb_calibrate(refusals_docs, vectors, 64, OMENDB_F32, NULL, NULL)};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        CHECK_EQ_INT(codes[i], OMENDB_DROPPED);
    CHECK(strstr(omendb_errmsg(), "docs") != NULL);
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

static int refusals_continue(void *context, uint64_t done, uint64_t total)
{
    (void)context;
    return done > total;
}

TEST(every_call_on_a_released_database_is_misuse)
{
    omendb_collection *collection = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_stats stats = OMENDB_STATS_INIT;
    omendb_txn *txn = NULL;
    char name[64];
    CHECK(refusals_begin());
    CHECK_EQ_INT(omendb_refresh(refusals_db), OMENDB_OK); /* nothing to do for a writer */
    CHECK_EQ_INT(omendb_optimize(refusals_db, refusals_continue, NULL), OMENDB_OK);
    omendb_release(refusals_db);
    const int codes[] = {omendb_refresh(refusals_db),
                         omendb_checkpoint(refusals_db),
                         omendb_optimize(refusals_db, NULL, NULL),
                         omendb_work(refusals_db, 0, NULL),
                         omendb_backup(refusals_db, "nowhere"),
                         omendb_check(refusals_db, NULL, NULL, NULL),
                         omendb_get_stats(refusals_db, &stats),
                         omendb_collection_create(refusals_db, "x", &schema, &collection),
                         omendb_collection_open(refusals_db, "docs", NULL, &collection),
                         omendb_collection_drop(refusals_db, "docs"),
                         omendb_collection_name(refusals_db, 0, name, sizeof name),
                         omendb_txn_begin(refusals_db, OMENDB_READ_ONLY, &txn)};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        CHECK_EQ_INT(codes[i], OMENDB_MISUSE);
    omendb_collection_close(refusals_docs);
}

TEST(codes_and_types_outside_their_range_have_a_name_too)
{
    CHECK_EQ_STR(omendb_strerror(-1), "unknown code");
    CHECK_EQ_STR(omendb_strerror(INT_MAX), "unknown code");
    CHECK_EQ_STR(omendb_scalar_name(-1), "unknown type");
    CHECK_EQ_STR(omendb_scalar_name(OMENDB_B1 + 1), "unknown type");
    CHECK_EQ_STR(omendb_metric_name(-1), "unknown metric");
    CHECK_EQ_STR(omendb_metric_name(OMENDB_HAMMING + 1), "unknown metric");
}

/* ------------------------------------------------------------------------------------------------
 * names */

static int refusals_create(const char *name)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *collection = NULL;
    schema.dim = REFUSALS_DIM;
    const int status = omendb_collection_create(refusals_db, name, &schema, &collection);
    omendb_collection_close(collection);
    return status;
}

TEST(names_of_every_script_are_taken)
{
    /* the first and last of each length, and both neighbours of the surrogates */
    static const char *const names[] = {" ",
                                        "~",
                                        "\xc2\x80",
                                        "\xdf\xbf",
                                        "\xe0\xa0\x80",
                                        "\xed\x9f\xbf",
                                        "\xee\x80\x80",
                                        "\xef\xbf\xbf",
                                        "\xf0\x90\x80\x80",
                                        "\xf4\x8f\xbf\xbf",
                                        "a\xc3\xa9z"};
    CHECK(refusals_begin());
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        CHECK_EQ_INT(refusals_create(names[i]), OMENDB_OK);
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

TEST(names_that_are_no_utf8_are_refused_with_the_place)
{
    static const struct {
        const char *name, *place;
    } cases[] = {
        {"a\x1f", "byte 1"},             /* control */
        {"ab\x7f", "byte 2"},            /* delete */
        {"\x80", "byte 0"},              /* a continuation without a start */
        {"\xc0\x80", "byte 0"},          /* overlong */
        {"\xc1\xbf", "byte 0"},          /* overlong */
        {"\xe0\x9f\xbf", "byte 0"},      /* overlong */
        {"\xf0\x8f\xbf\xbf", "byte 0"},  /* overlong */
        {"\xed\xa0\x80", "byte 0"},      /* surrogate */
        {"x\xf4\x90\x80\x80", "byte 1"}, /* above U+10FFFF */
        {"\xf5\x80\x80\x80", "byte 0"},  /* above U+10FFFF */
        {"\xff", "byte 0"},              /* in no UTF-8 */
        {"\xc3(", "byte 0"},             /* cut short */
        {"\xe2\x82", "byte 0"},          /* cut short by the end */
        {"\xe2(\xa1", "byte 0"},
        {"\xf0\x90\x80", "byte 0"},
    };
    CHECK(refusals_begin());
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        CHECK(refusals_is(refusals_create(cases[i].name), OMENDB_INVALID, cases[i].place));
    CHECK(refusals_is(refusals_create(NULL), OMENDB_MISUSE, "name"));
    CHECK(refusals_is(omendb_collection_drop(refusals_db, NULL), OMENDB_MISUSE, "name"));
    CHECK(refusals_is(omendb_collection_drop(refusals_db, "none"), OMENDB_NOTFOUND, "none"));
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

TEST(a_name_that_does_not_fit_is_not_cut)
{
    char name[8] = "before";
    CHECK(refusals_begin());
    CHECK(refusals_is(omendb_collection_name(refusals_db, 0, name, 4), OMENDB_INVALID, "5 bytes"));
    CHECK_EQ_STR(name, "before");
    CHECK(refusals_is(omendb_collection_name(refusals_db, 0, NULL, 4), OMENDB_MISUSE, "name"));
    CHECK_EQ_INT(omendb_collection_name(refusals_db, 0, name, 5), OMENDB_OK);
    CHECK_EQ_STR(name, "docs");
    CHECK_EQ_INT(omendb_collection_name(refusals_db, 1, name, 5), OMENDB_DONE);
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * tables of functions, options */

static int refusals_open_with(const omendb_options *options)
{
    omendb *db = NULL;
    const int status = omendb_open(":memory:", options, &db);
    if (status == OMENDB_OK)
        omendb_close(db);
    return status;
}

TEST(a_vfs_that_lacks_a_function_is_refused)
{
    static const size_t needed[] = {
        offsetof(omendb_vfs, open_directory), offsetof(omendb_vfs, close_directory),
        offsetof(omendb_vfs, sync_directory), offsetof(omendb_vfs, list),
        offsetof(omendb_vfs, rename),         offsetof(omendb_vfs, unlink),
        offsetof(omendb_vfs, open),           offsetof(omendb_vfs, close),
        offsetof(omendb_vfs, size),           offsetof(omendb_vfs, read),
        offsetof(omendb_vfs, write),          offsetof(omendb_vfs, truncate),
        offsetof(omendb_vfs, allocate),       offsetof(omendb_vfs, sync),
        offsetof(omendb_vfs, lock),           offsetof(omendb_vfs, identity),
        offsetof(omendb_vfs, now_us),         offsetof(omendb_vfs, unmap)};
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_vfs vfs;
    options.vfs = &vfs;
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        vfs = *omendb_default_vfs();
        memset((unsigned char *)&vfs + needed[i], 0, sizeof vfs.open);
        CHECK(refusals_is(refusals_open_with(&options), OMENDB_MISUSE, "options.vfs"));
    }
    vfs = *omendb_default_vfs();
    vfs.struct_size = 8;
    CHECK(refusals_is(refusals_open_with(&options), OMENDB_MISUSE, "options.vfs.struct_size"));
}

TEST(an_allocator_that_lacks_a_function_is_refused)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_allocator allocator = refusals_allocator;
    options.allocator = &allocator;
    CHECK_EQ_INT(refusals_open_with(&options), OMENDB_OK);
    allocator.alloc = NULL;
    CHECK(refusals_is(refusals_open_with(&options), OMENDB_MISUSE, "options.allocator"));
    allocator = refusals_allocator;
    allocator.resize = NULL;
    CHECK(refusals_is(refusals_open_with(&options), OMENDB_MISUSE, "options.allocator"));
    allocator = refusals_allocator;
    allocator.release = NULL;
    CHECK(refusals_is(refusals_open_with(&options), OMENDB_MISUSE, "options.allocator"));
    allocator.struct_size = 1;
    CHECK(refusals_is(refusals_open_with(&options), OMENDB_MISUSE, "allocator.struct_size"));
}

TEST(options_beyond_their_range_are_refused_and_huge_limits_are_none)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.threads = 1025;
    CHECK(refusals_is(refusals_open_with(&options), OMENDB_INVALID, "1025"));
    options.threads = OMENDB_THREADS_AUTO - 1;
    CHECK(refusals_is(refusals_open_with(&options), OMENDB_INVALID, "threads"));
    options.threads = 0;
    options.wal_limit = UINT64_MAX;
    options.tail_limit = UINT64_MAX;
    CHECK_EQ_INT(refusals_open_with(&options), OMENDB_OK);
    options.read_only = 1;
    CHECK(refusals_is(refusals_open_with(&options), OMENDB_INVALID, "memory"));
    CHECK(refusals_is(omendb_open(NULL, NULL, &refusals_db), OMENDB_MISUSE, "path"));
    CHECK(refusals_is(omendb_open("", NULL, &refusals_db), OMENDB_INVALID, "path"));
    CHECK(refusals_is(omendb_open(":memory:", NULL, NULL), OMENDB_MISUSE, "db"));
}

/* ------------------------------------------------------------------------------------------------
 * schemas */

static int refusals_create_as(const omendb_schema *schema, const char *name)
{
    omendb_collection *collection = NULL;
    const int status = omendb_collection_create(refusals_db, name, schema, &collection);
    omendb_collection_close(collection);
    return status;
}

TEST(a_scale_is_for_integers_and_positive)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = REFUSALS_DIM;
    CHECK(refusals_begin());
    schema.scale = 2.0f;
    CHECK(refusals_is(refusals_create_as(&schema, "s"), OMENDB_INVALID, "scale is 2"));
    schema.scalar = OMENDB_I8;
    schema.scale = -1.0f;
    CHECK(refusals_is(refusals_create_as(&schema, "s"), OMENDB_INVALID, "scale is -1"));
    schema.scale = 2e30f;
    CHECK(refusals_is(refusals_create_as(&schema, "s"), OMENDB_INVALID, "scale is 2e+30"));
    schema.scale = NAN;
    CHECK(refusals_is(refusals_create_as(&schema, "s"), OMENDB_INVALID, "scale is"));
    schema.scale = 2.0f;
    CHECK_EQ_INT(refusals_create_as(&schema, "i8"), OMENDB_OK);
    schema.scalar = OMENDB_U8;
    CHECK_EQ_INT(refusals_create_as(&schema, "u8"), OMENDB_OK);
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

TEST(a_schema_that_differs_in_any_field_is_named)
{
    omendb_schema stored = OMENDB_SCHEMA_INIT, given;
    omendb_collection *collection = NULL;
    stored.dim = REFUSALS_DIM;
    stored.scalar = OMENDB_I8;
    stored.scale = 2.0f;
    stored.M = 8;
    stored.ef_construction = 50;
    stored.ef = 30;
    stored.seed = 7;
    CHECK(refusals_begin());
    CHECK_EQ_INT(refusals_create_as(&stored, "s"), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(refusals_db, "s", &stored, &collection), OMENDB_OK);
    omendb_collection_close(collection);
    static const char *const fields[] = {"dim", "metric",          "scalar", "scale",
                                         "M",   "ef_construction", "ef",     "seed"};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        given = stored;
        given.dim += i == 0;
        given.metric = i == 1 ? OMENDB_INNER_PRODUCT : given.metric;
        given.scalar = i == 2 ? OMENDB_U8 : given.scalar;
        given.scale += i == 3 ? 1.0f : 0.0f;
        given.M += i == 4;
        given.ef_construction += i == 5;
        given.ef += i == 6;
        given.seed += i == 7;
        CHECK(refusals_is(omendb_collection_open(refusals_db, "s", &given, &collection),
                          OMENDB_MISMATCH, fields[i]));
    }
    /* what is 0 is not compared */
    omendb_schema least = OMENDB_SCHEMA_INIT;
    least.scalar = OMENDB_I8;
    CHECK_EQ_INT(omendb_collection_open(refusals_db, "s", &least, &collection), OMENDB_OK);
    omendb_collection_close(collection);
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * children of a fork */

/* In the child; 0: every handle was refused, or left alone where nothing can be told. */
static int refusals_use_as_a_child(omendb_txn *txn, omendb_rows *rows)
{
    uint64_t count = 0, id = 0;
    int bad = omendb_count(refusals_docs, NULL, &count) != OMENDB_MISUSE;
    bad |= omendb_txn_commit(txn) != OMENDB_MISUSE;
    bad |= omendb_rows_next(rows, &id, OMENDB_F32, NULL) != OMENDB_MISUSE;
    omendb_rows_close(rows);
    omendb_txn_rollback(txn);
    omendb_collection_close(refusals_docs);
    return bad | (omendb_close(refusals_db) != OMENDB_OK);
}

TEST(handles_of_a_parent_are_refused_in_its_child_one_and_all)
{
    omendb_txn *txn = NULL;
    omendb_rows *rows = NULL;
    uint64_t id = 77;
    int status = -1;
    CHECK(refusals_begin());
    CHECK_EQ_INT(omendb_txn_begin(refusals_db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(refusals_docs, NULL, 0, 5, &rows), OMENDB_OK);
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0)
        _exit(refusals_use_as_a_child(txn, rows));
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_EQ_INT(omendb_rows_next(rows, &id, OMENDB_F32, NULL), OMENDB_OK);
    CHECK_EQ_INT(id, 0);
    omendb_rows_close(rows);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * queries and batches */

static int refusals_search(const omendb_query *query)
{
    uint64_t ids[10];
    size_t count = 77;
    const int status = omendb_search(refusals_docs, NULL, query, ids, NULL, &count);
    return status == OMENDB_OK && count == 77 ? OMENDB_CORRUPT : status;
}

TEST(each_field_of_a_query_is_looked_at)
{
    float vector[REFUSALS_DIM];
    omendb_query start = OMENDB_QUERY_INIT, query;
    support_vector(5, REFUSALS_DIM, vector);
    start.vector = vector;
    CHECK(refusals_begin());
    query = start;
    query.stretch = INFINITY;
    CHECK(refusals_is(refusals_search(&query), OMENDB_INVALID, "stretch"));
    query.stretch = 0.5f;
    CHECK(refusals_is(refusals_search(&query), OMENDB_INVALID, "stretch"));
    query.stretch = 1.2f;
    CHECK_EQ_INT(refusals_search(&query), OMENDB_OK);
    query.recall = 0.9f;
    CHECK(refusals_is(refusals_search(&query), OMENDB_INVALID, "set one"));
    query = start;
    query.reserved = 1;
    CHECK(refusals_is(refusals_search(&query), OMENDB_INVALID, "reserved"));
    query = start;
    query.use_radius = 2;
    CHECK(refusals_is(refusals_search(&query), OMENDB_INVALID, "use_radius 2"));
    query.use_radius = 0;
    query.exact = 2;
    CHECK(refusals_is(refusals_search(&query), OMENDB_INVALID, "exact is 2"));
    query.exact = 0;
    query.radius = 1.0f;
    CHECK(refusals_is(refusals_search(&query), OMENDB_INVALID, "use_radius is 0"));
    query.use_radius = 1;
    query.radius = NAN;
    CHECK(refusals_is(refusals_search(&query), OMENDB_INVALID, "NaN"));
    query = start;
    query.vector_type = OMENDB_B1 + 1;
    CHECK(refusals_is(refusals_search(&query), OMENDB_INVALID, "type"));
    query.vector = NULL;
    CHECK(refusals_is(refusals_search(&query), OMENDB_INVALID,
                      "neither query.id nor query.key is set"));
    query.id = 12345;
    CHECK(refusals_is(refusals_search(&query), OMENDB_NOTFOUND, "12345"));
    CHECK(refusals_is(refusals_search(NULL), OMENDB_MISUSE, "query"));
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

TEST(a_batch_of_queries_is_looked_at_as_one_is)
{
    float vectors[3 * REFUSALS_DIM];
    uint64_t ids[30], again[30];
    size_t counts[3];
    omendb_query query = OMENDB_QUERY_INIT;
    for (uint64_t i = 0; i < 3; i++)
        support_vector(i + 40, REFUSALS_DIM, vectors + i * REFUSALS_DIM);
    CHECK(refusals_begin());
    CHECK_EQ_INT(omendb_search_batch(refusals_docs, NULL, &query, NULL, 0, NULL, NULL, NULL),
                 OMENDB_OK);
    CHECK(refusals_is(omendb_search_batch(refusals_docs, NULL, &query, NULL, 3, ids, NULL, counts),
                      OMENDB_MISUSE, "vectors"));
    CHECK(refusals_is(
        omendb_search_batch(refusals_docs, NULL, &query, vectors, 3, NULL, NULL, counts),
        OMENDB_MISUSE, "ids"));
    query.k = SIZE_MAX / 2;
    CHECK(
        refusals_is(omendb_search_batch(refusals_docs, NULL, &query, vectors, 3, ids, NULL, counts),
                    OMENDB_TOOBIG, "3 queries"));
    query.k = 10;
    query.vector_type = OMENDB_B1 + 1;
    CHECK(
        refusals_is(omendb_search_batch(refusals_docs, NULL, &query, vectors, 3, ids, NULL, counts),
                    OMENDB_INVALID, "type"));
    query.vector_type = OMENDB_F32;
    /* neither distances nor counts are needed */
    CHECK_EQ_INT(omendb_search_batch(refusals_docs, NULL, &query, vectors, 3, ids, NULL, counts),
                 OMENDB_OK);
    CHECK_EQ_INT(omendb_search_batch(refusals_docs, NULL, &query, vectors, 3, again, NULL, NULL),
                 OMENDB_OK);
    CHECK_EQ_INT(memcmp(ids, again, sizeof ids), 0);
    /* fewer hits than asked for: the rest is no id */
    query.k = 10;
    query.use_radius = 1;
    query.radius = -1.0f;
    float distances[30];
    CHECK_EQ_INT(
        omendb_search_batch(refusals_docs, NULL, &query, vectors, 3, ids, distances, counts),
        OMENDB_OK);
    for (size_t i = 0; i < 30; i++)
        CHECK(ids[i] == OMENDB_ID_AUTO && isinf(distances[i]));
    CHECK_EQ_INT(counts[0] + counts[1] + counts[2], 0);
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

TEST(new_ids_may_lie_where_the_ids_were)
{
    float vectors[3 * REFUSALS_DIM];
    uint64_t ids[3] = {50, 51, 52}, new_ids[3] = {0, 0, 0};
    for (uint64_t i = 0; i < 3; i++)
        support_vector(i + 40, REFUSALS_DIM, vectors + i * REFUSALS_DIM);
    CHECK(refusals_begin());
    CHECK_EQ_INT(omendb_add_batch(refusals_docs, NULL, 3, ids, vectors, OMENDB_F32, ids),
                 OMENDB_OK);
    CHECK_EQ_INT(ids[2], 52);
    CHECK_EQ_INT(omendb_put_batch(refusals_docs, NULL, 3, ids, vectors, OMENDB_F32, new_ids),
                 OMENDB_OK);
    CHECK_EQ_INT(memcmp(ids, new_ids, sizeof ids), 0);
    CHECK_EQ_INT(omendb_put_batch(refusals_docs, NULL, 3, NULL, vectors, OMENDB_F32, NULL),
                 OMENDB_OK);
    CHECK_EQ_INT(omendb_add_batch(refusals_docs, NULL, 3, NULL, vectors, OMENDB_F32, new_ids),
                 OMENDB_OK);
    CHECK(new_ids[0] > 52 && new_ids[1] == new_ids[0] + 1 && new_ids[2] == new_ids[0] + 2);
    CHECK(refusals_is(omendb_add_batch(refusals_docs, NULL, 3, NULL, NULL, OMENDB_F32, NULL),
                      OMENDB_MISUSE, "vectors"));
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

TEST(deleting_counts_what_was_there_for_who_wants_to_know)
{
    const uint64_t ids[] = {1, 2, 999}, again[] = {3, 4, 3}, twice[] = {5, OMENDB_ID_AUTO};
    size_t deleted = 77;
    CHECK(refusals_begin());
    CHECK(refusals_is(omendb_delete_batch(refusals_docs, NULL, 3, NULL, &deleted), OMENDB_MISUSE,
                      "ids"));
    CHECK_EQ_INT(omendb_delete_batch(refusals_docs, NULL, 0, NULL, &deleted), OMENDB_OK);
    CHECK_EQ_INT(deleted, 0);
    CHECK_EQ_INT(omendb_delete_batch(refusals_docs, NULL, 3, ids, &deleted), OMENDB_OK);
    CHECK_EQ_INT(deleted, 2);
    CHECK_EQ_INT(omendb_delete_batch(refusals_docs, NULL, 3, ids, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete_batch(refusals_docs, NULL, 3, again, &deleted), OMENDB_OK);
    CHECK_EQ_INT(deleted, 2);
    CHECK(omendb_delete_batch(refusals_docs, NULL, 2, twice, &deleted) != OMENDB_MISUSE);
    CHECK(refusals_is(omendb_delete(refusals_docs, NULL, OMENDB_ID_AUTO), OMENDB_NOTFOUND,
                      "no record"));
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * answers */

TEST(what_a_call_should_fill_must_be_there)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    omendb_collection_stats own = OMENDB_COLLECTION_STATS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_query query = OMENDB_QUERY_INIT;
    uint64_t ids[10];
    size_t count;
    CHECK(refusals_begin());
    CHECK(refusals_is(omendb_get_stats(refusals_db, NULL), OMENDB_MISUSE, "stats"));
    CHECK(refusals_is(omendb_collection_get_stats(refusals_docs, NULL), OMENDB_MISUSE, "stats"));
    CHECK(refusals_is(omendb_collection_schema(refusals_docs, NULL), OMENDB_MISUSE, "schema"));
    CHECK(refusals_is(omendb_collection_open_or_create(refusals_db, "x", NULL, NULL), OMENDB_MISUSE,
                      "schema"));
    CHECK(refusals_is(omendb_collection_open_or_create(refusals_db, "x", &schema, NULL),
                      OMENDB_MISUSE, "collection"));
    CHECK(refusals_is(omendb_search(refusals_docs, NULL, &query, NULL, NULL, &count), OMENDB_MISUSE,
                      "ids"));
    CHECK(refusals_is(omendb_search(refusals_docs, NULL, &query, ids, NULL, NULL), OMENDB_MISUSE,
                      "count"));
    CHECK(refusals_is(omendb_txn_begin(refusals_db, 0, NULL), OMENDB_MISUSE, "txn"));
    CHECK(refusals_is(omendb_txn_commit(NULL), OMENDB_MISUSE, "txn"));
    CHECK(refusals_is(omendb_scan(refusals_docs, NULL, 0, 1, NULL), OMENDB_MISUSE, "rows"));
    CHECK(refusals_is(omendb_count(refusals_docs, NULL, NULL), OMENDB_MISUSE, "count"));
    CHECK(refusals_is(omendb_backup(refusals_db, NULL), OMENDB_MISUSE, "path"));
    stats.struct_size = 0;
    CHECK(refusals_is(omendb_get_stats(refusals_db, &stats), OMENDB_MISUSE, "struct_size"));
    own.struct_size = 1 << 20;
    CHECK(refusals_is(omendb_collection_get_stats(refusals_docs, &own), OMENDB_MISUSE,
                      "struct_size"));
    schema.struct_size = 0;
    CHECK(refusals_is(omendb_collection_schema(refusals_docs, &schema), OMENDB_MISUSE,
                      "struct_size"));
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

/* A small ef of the schema: the promise is for ten hits all the same. */
TEST(statistics_promise_recall_of_ten_hits_whatever_ef_is)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *small = NULL;
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    float queries[64 * REFUSALS_DIM];
    schema.dim = REFUSALS_DIM;
    schema.ef = 1;
    CHECK(refusals_begin());
    CHECK_EQ_INT(omendb_collection_create(refusals_db, "small", &schema, &small), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_get_stats(small, &stats), OMENDB_OK);
    CHECK(stats.recall == 0.0f && stats.recall_queries == 0);
    for (uint64_t id = 0; id < 1500; id++)
        CHECK_EQ_INT(support_put(small, NULL, id, id + 1, REFUSALS_DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(refusals_db, NULL, NULL), OMENDB_OK);
    for (uint64_t i = 0; i < 64; i++)
        support_vector(i + 5000, REFUSALS_DIM, queries + i * REFUSALS_DIM);
    CHECK_EQ_INT(omendb_calibrate(small, queries, 64, OMENDB_F32, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_get_stats(small, &stats), OMENDB_OK);
    CHECK(stats.recall > 0.0f && stats.recall <= 1.0f && stats.recall_queries == 64);
    omendb_collection_close(small);
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

/* A record may be looked for without being read, and a batch of ids may have some twice. */
TEST(what_is_not_wanted_is_not_given)
{
    float vectors[3 * REFUSALS_DIM] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    const uint64_t twice[] = {3, 3, 4}, mixed[] = {70, OMENDB_ID_AUTO, 71};
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_rows *rows = NULL;
    uint64_t ids[30], new_ids[3], id = 77;
    size_t deleted;
    CHECK(refusals_begin());
    CHECK_EQ_INT(omendb_get(refusals_docs, NULL, 3, OMENDB_F32, NULL), OMENDB_OK);
    CHECK(refusals_is(omendb_get(refusals_docs, NULL, 3, -1, vectors), OMENDB_INVALID, "type"));
    CHECK_EQ_INT(omendb_scan(refusals_docs, NULL, 2, 4, &rows), OMENDB_OK);
    CHECK(refusals_is(omendb_rows_next(rows, &id, -1, vectors), OMENDB_INVALID, "type"));
    omendb_rows_close(rows);
    query.explain = &explain; /* of one search, not of a batch */
    CHECK_EQ_INT(omendb_search_batch(refusals_docs, NULL, &query, vectors, 1, ids, NULL, NULL),
                 OMENDB_OK);
    CHECK_EQ_INT(explain.distances, 0);
    CHECK_EQ_INT(omendb_delete_batch(refusals_docs, NULL, 3, twice, &deleted), OMENDB_OK);
    CHECK_EQ_INT(deleted, 2);
    CHECK_EQ_INT(omendb_add_batch(refusals_docs, NULL, 3, mixed, vectors, OMENDB_F32, new_ids) ==
                     OMENDB_OK,
                 new_ids[0] == 70);
    CHECK(omendb_add_batch(refusals_docs, NULL, (size_t)1 << 60, NULL, vectors, OMENDB_F32, NULL) !=
          OMENDB_OK);
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

TEST(a_calibration_needs_queries_of_a_known_type_and_number)
{
    float queries[64 * REFUSALS_DIM] = {0};
    CHECK(refusals_begin());
    CHECK(refusals_is(omendb_calibrate(refusals_docs, NULL, 64, OMENDB_F32, NULL, NULL),
                      OMENDB_MISUSE, "queries"));
    CHECK(refusals_is(omendb_calibrate(refusals_docs, queries, 1, OMENDB_F32, NULL, NULL),
                      OMENDB_INVALID, "1 queries"));
    CHECK(refusals_is(
        omendb_calibrate(refusals_docs, queries, OMENDB_CALIBRATE_MAX + 1, OMENDB_F32, NULL, NULL),
        OMENDB_INVALID, "queries"));
    CHECK(refusals_is(omendb_calibrate(refusals_docs, queries, 64, 99, NULL, NULL), OMENDB_INVALID,
                      "type"));
    queries[5 * REFUSALS_DIM] = NAN;
    CHECK(refusals_is(omendb_calibrate(refusals_docs, queries, 64, OMENDB_F32, NULL, NULL),
                      OMENDB_INVALID, "5"));
    CHECK_EQ_INT(refusals_end(), OMENDB_OK);
}

TEST_MAIN(what_is_no_handle_is_misuse, null_is_closed_without_a_word,
          a_released_database_is_freed_by_its_last_child,
          every_call_on_a_dropped_collection_says_that_it_was,
          every_call_on_a_released_database_is_misuse,
          codes_and_types_outside_their_range_have_a_name_too, names_of_every_script_are_taken,
          names_that_are_no_utf8_are_refused_with_the_place, a_name_that_does_not_fit_is_not_cut,
          a_vfs_that_lacks_a_function_is_refused, an_allocator_that_lacks_a_function_is_refused,
          options_beyond_their_range_are_refused_and_huge_limits_are_none,
          a_scale_is_for_integers_and_positive, a_schema_that_differs_in_any_field_is_named,
          handles_of_a_parent_are_refused_in_its_child_one_and_all,
          each_field_of_a_query_is_looked_at, a_batch_of_queries_is_looked_at_as_one_is,
          new_ids_may_lie_where_the_ids_were, deleting_counts_what_was_there_for_who_wants_to_know,
          what_a_call_should_fill_must_be_there,
          statistics_promise_recall_of_ten_hits_whatever_ef_is, what_is_not_wanted_is_not_given,
          a_calibration_needs_queries_of_a_known_type_and_number)
