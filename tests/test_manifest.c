/* test_manifest.c: the root: what is published is read back, or the former one is; damage and
 * nonsense are refused. */
#include "internals.h"

#include <errno.h>

#include "test.h"
#include "storage_fixture.h"

#define COLLECTIONS 3

/* A manifest whose parts the tests may change, on no heap. */
struct sample {
    struct manifest manifest;
    struct manifest_file files[4];
    struct manifest_collection collections[COLLECTIONS];
    struct manifest_segment segments[COLLECTIONS][2];
    struct calibration calibration; /* of the second collection */
    uint8_t declaration[24];        /* of the third */
};

static void sample_make(struct sample *sample, uint64_t number)
{
    static const char *const names[COLLECTIONS] = {"a", "docs", "docs of \xc3\xa9"};
    static const struct manifest_file files[4] = {{9, 40000, 11, STORAGE_SEGMENT},
                                                  {3, 50000, 12, STORAGE_OVERLAY},
                                                  {4, 60000, 13, STORAGE_SEGMENT},
                                                  {8, 70000, 14, STORAGE_SEGMENT}};
    memset(sample, 0, sizeof *sample);
    memcpy(sample->files, files, sizeof files);
    sample->manifest = (struct manifest){.number = number,
                                         .commit = 1000 + number,
                                         .wal_number = 2,
                                         .next_file = 10,
                                         .next_collection = 77,
                                         .file_count = 4,
                                         .collection_count = COLLECTIONS,
                                         .files = sample->files,
                                         .collections = sample->collections};
    for (uint32_t i = 0; i < COLLECTIONS; i++) {
        struct manifest_collection *collection = &sample->collections[i];
        const omendb_schema schema = {
            sizeof schema, 128 + i, OMENDB_COSINE, OMENDB_I8, 0.5f, 16, 200, 64, 5};
        collection->id = 76 - i;
        collection->next_id = UINT64_MAX - i;
        collection->schema = schema;
        snprintf(collection->name, sizeof collection->name, "%s", names[i]);
        collection->segments = sample->segments[i];
        collection->segment_count = i == 1 ? 0 : 2;
        sample->segments[i][0] = (struct manifest_segment){4, i, 6 + i, 3};
        sample->segments[i][1] = (struct manifest_segment){9, i, 0, 0};
    }
    sample->calibration = (struct calibration){.rows = 700,
                                               .queries = 80,
                                               .all_rows = 900,
                                               .count = 3,
                                               .entries = {{10, 16, 0.0f, 0.8f, 0.75f, 150},
                                                           {10, 64, 0.0f, 0.9f, 0.85f, 600},
                                                           {100, 128, 0.5f, 1, 1, 1200}}};
    sample->collections[1].calibration = &sample->calibration;
    sample->collections[2].limits = (omendb_limits){sizeof(omendb_limits), 7, 8, 9, 10};
    sample->collections[2].document_bytes = 0x1122334455667788;
    /* One field, "ab", an integer, required; strict. */
    memcpy(sample->declaration, "\30\0\0\0\1\0\1\0\20\0\0\0\2\0\1\1ab", 18);
    sample->collections[2].declaration = sample->declaration;
    sample->collections[2].declaration_bytes = sizeof sample->declaration;
}

static int sample_usage_equals(const struct manifest_collection *left,
                               const struct manifest_collection *right)
{
    return left->document_bytes == right->document_bytes &&
           left->declaration_bytes == right->declaration_bytes &&
           (left->declaration_bytes == 0 ||
            memcmp(left->declaration, right->declaration, left->declaration_bytes) == 0) &&
           left->limits.records == right->limits.records &&
           left->limits.bytes == right->limits.bytes &&
           left->limits.queries_per_second == right->limits.queries_per_second &&
           left->limits.writes_per_second == right->limits.writes_per_second;
}

/* Between the last two fields there is padding. */
static int sample_schemas_equal(const omendb_schema *left, const omendb_schema *right)
{
    const size_t size = offsetof(omendb_schema, ef) + sizeof left->ef;
    return memcmp(left, right, size) == 0 && left->seed == right->seed;
}

static int sample_curves_equal(const struct calibration *left, const struct calibration *right)
{
    if (left == NULL || right == NULL)
        return left == right;
    return left->rows == right->rows && left->queries == right->queries &&
           left->all_rows == right->all_rows && left->count == right->count &&
           memcmp(left->entries, right->entries, sizeof left->entries) == 0;
}

/* Whether it holds what sample_make gave, files in order. */
static int sample_equals(const struct manifest *manifest, uint64_t number)
{
    static const uint64_t order[4] = {3, 4, 8, 9};
    struct sample sample;
    sample_make(&sample, number);
    int equal = manifest->number == number && manifest->commit == 1000 + number &&
                manifest->wal_number == 2 && manifest->next_file == 10 &&
                manifest->next_collection == 77 && manifest->file_count == 4 &&
                manifest->collection_count == COLLECTIONS && manifest->read_only_features == 0;
    for (uint32_t i = 0; equal && i < 4; i++)
        equal = manifest->files[i].number == order[i];
    equal = equal && manifest->files[0].size == 50000 && manifest->files[0].footer_crc == 12 &&
            manifest->files[0].kind == STORAGE_OVERLAY &&
            manifest->files[3].kind == STORAGE_SEGMENT;
    for (uint32_t i = 0; equal && i < COLLECTIONS; i++) {
        const struct manifest_collection *left = &manifest->collections[i],
                                         *right = &sample.collections[i];
        equal = left->id == right->id && left->next_id == right->next_id &&
                strcmp(left->name, right->name) == 0 &&
                sample_schemas_equal(&left->schema, &right->schema) &&
                left->segment_count == right->segment_count &&
                memcmp(left->segments, right->segments,
                       left->segment_count * sizeof *left->segments) == 0 &&
                sample_curves_equal(left->calibration, right->calibration) &&
                sample_usage_equals(left, right);
    }
    return equal;
}

static int sample_write(uint64_t number)
{
    struct sample sample;
    sample_make(&sample, number);
    return manifest_write(&fixture.storage, &sample.manifest);
}

/* The code of reading, or OMENDB_MISUSE when what was read is not the sample of this number. */
static int sample_read(uint64_t number)
{
    struct manifest manifest;
    const int code = manifest_read(&fixture.storage, &manifest);
    const int equal = code != OMENDB_OK || sample_equals(&manifest, number);
    manifest_destroy(&fixture.memory, &manifest);
    return equal ? code : OMENDB_MISUSE;
}

/* ---------------------------------------------------------------------------------------------------
 * writing and reading */

TEST(manifest_gives_back_what_was_published)
{
    uint64_t number = 0;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_read(1), OMENDB_NOTFOUND);
    CHECK_EQ_INT(manifest_current(&fixture.storage, &number), OMENDB_NOTFOUND);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    CHECK_EQ_INT(sample_read(5), OMENDB_OK);
    CHECK_EQ_INT(sample_write(6), OMENDB_OK);
    CHECK_EQ_INT(sample_read(6), OMENDB_OK);
    CHECK_EQ_INT(manifest_current(&fixture.storage, &number), OMENDB_OK);
    CHECK_EQ_INT(number, 6);
    CHECK(fixture_exists("MANIFEST-5") && !fixture_exists("CURRENT.tmp"));
    CHECK_EQ_INT(sample_write(5), OMENDB_EXISTS);
    CHECK(fixture_exists("MANIFEST-5"));
    CHECK_EQ_INT(sample_read(6), OMENDB_OK);
    fixture_end();
}

TEST(manifest_may_be_empty)
{
    struct manifest manifest = {.number = 1, .next_file = 1, .next_collection = 1};
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(manifest_write(&fixture.storage, &manifest), OMENDB_OK);
    CHECK_EQ_INT(manifest_read(&fixture.storage, &manifest), OMENDB_OK);
    CHECK(manifest.file_count == 0 && manifest.collection_count == 0 && manifest.number == 1);
    manifest_destroy(&fixture.memory, &manifest);
    manifest_destroy(&fixture.memory, &manifest);
    fixture_end();
}

TEST(manifest_syncs_both_files_and_the_directory_twice)
{
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    CHECK_EQ_INT(fixture.storage.syncs, 4);
    fixture.storage.sync = OMENDB_SYNC_OFF;
    fixture_fail(FIXTURE_SYNC | FIXTURE_SYNC_DIRECTORY, 0, 1, OMENDB_IOERR);
    CHECK_EQ_INT(sample_write(6), OMENDB_OK);
    CHECK(fixture.storage.syncs == 4 && fixture.calls == 0);
    CHECK_EQ_INT(sample_read(6), OMENDB_OK);
    fixture_end();
}

/* Enough collections that names of all lengths occur. */
TEST(manifest_holds_many_collections)
{
    struct manifest manifest = {
        .number = 1, .next_file = 1, .next_collection = 2000, .collection_count = 255};
    fixture_begin(OMENDB_IO_MAP);
    manifest.collections = calloc(255, sizeof *manifest.collections);
    for (uint32_t i = 0; i < 255; i++) {
        memset(manifest.collections[i].name, 'x', i + 1);
        manifest.collections[i].id = i + 1;
        manifest.collections[i].schema =
            (omendb_schema){sizeof(omendb_schema), 1, OMENDB_HAMMING, OMENDB_B1, 0, 2, 8, 1, 0};
    }
    CHECK_EQ_INT(manifest_write(&fixture.storage, &manifest), OMENDB_OK);
    free(manifest.collections);
    CHECK_EQ_INT(manifest_read(&fixture.storage, &manifest), OMENDB_OK);
    CHECK_EQ_INT(manifest.collection_count, 255);
    for (uint32_t i = 0; i < 255; i++)
        CHECK(strlen(manifest.collections[i].name) == i + 1 && manifest.collections[i].id == i + 1);
    manifest_destroy(&fixture.memory, &manifest);
    fixture_end();
}

/* ---------------------------------------------------------------------------------------------------
 * damage */

TEST(manifest_flip_of_any_byte_is_refused)
{
    static const char *const names[2] = {"MANIFEST-5", "CURRENT"};
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    for (int i = 0; i < 2; i++) {
        for (uint64_t offset = 0; offset < fixture_file_size(names[i]); offset++) {
            for (unsigned mask = 1; mask < 256; mask *= 2) {
                fixture_flip(names[i], offset, (uint8_t)mask);
                const int code = sample_read(5);
                CHECK(code == OMENDB_CORRUPT || (code == OMENDB_FORMAT && offset < 8 && i == 0));
                CHECK_EQ_INT(fixture_held(), 0);
                fixture_flip(names[i], offset, (uint8_t)mask);
            }
        }
    }
    CHECK_EQ_INT(sample_read(5), OMENDB_OK);
    fixture_end();
}

TEST(manifest_cut_at_any_length_is_refused)
{
    static const char *const names[2] = {"MANIFEST-5", "CURRENT"};
    uint8_t bytes[4096];
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    for (int i = 0; i < 2; i++) {
        const uint64_t size = fixture_file_size(names[i]);
        CHECK(size < sizeof bytes);
        fixture_file_read(names[i], 0, bytes, (size_t)size);
        for (uint64_t length = 0; length < size; length++) {
            fixture_file_truncate(names[i], length);
            CHECK_EQ_INT(sample_read(5), OMENDB_CORRUPT);
            fixture_file_make(names[i], bytes, (size_t)size);
        }
        fixture_file_write(names[i], size, "\n", 1);
        CHECK_EQ_INT(sample_read(5), OMENDB_CORRUPT);
        fixture_file_make(names[i], bytes, (size_t)size);
    }
    fixture_end();
}

TEST(manifest_that_is_missing_or_another_is_refused)
{
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    CHECK_EQ_INT(sample_write(6), OMENDB_OK);
    fixture.inner.unlink(fixture.inner.context, fixture.storage.directory, "MANIFEST-6");
    CHECK_EQ_INT(sample_read(6), OMENDB_CORRUPT);
    CHECK(strstr(error_text(), "MANIFEST-6") != NULL);
    fixture.inner.rename(fixture.inner.context, fixture.storage.directory, "MANIFEST-5",
                         "MANIFEST-6");
    CHECK_EQ_INT(sample_read(6), OMENDB_CORRUPT);
    fixture_file_make("CURRENT", "LOCK\n00000000\n", 14);
    CHECK_EQ_INT(sample_read(6), OMENDB_CORRUPT);
    fixture_end();
}

static void publish_another(void)
{
    fixture.inner.unlink(fixture.inner.context, fixture.storage.directory, "MANIFEST-5");
    sample_write(6);
}

/* The writer of another process replaces the root between the two reads. */
TEST(manifest_that_was_replaced_meanwhile_is_read_anew)
{
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    fixture.before_read = NULL;
    void *handle = fixture_handle("CURRENT"); /* keeps the old text readable */
    fixture.before_read = publish_another;
    CHECK_EQ_INT(sample_read(6), OMENDB_OK);
    fixture.inner.close(fixture.inner.context, handle);
    fixture_end();
}

/* Changes bytes and signs anew, so that only the bounds stand between the numbers and memory. */
static void sign(uint8_t *bytes, size_t size)
{
    format_put32(bytes + FORMAT_MANIFEST_CRC, checksum_crc32c(0, bytes + 64, size - 64));
    storage_header_end(bytes);
    fixture_file_make("MANIFEST-5", bytes, size);
}

TEST(manifest_mutated_and_signed_is_bounded)
{
    uint64_t state = 1;
    int read = 0, refused = 0;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    const size_t size = (size_t)fixture_file_size("MANIFEST-5");
    uint8_t *bytes = malloc(size), *mutated = malloc(size);
    fixture_file_read("MANIFEST-5", 0, bytes, size);
    for (int round = 0; round < 50000; round++) {
        static const uint64_t values[] = {0,   1,          2,          3,         255,
                                          256, UINT32_MAX, UINT64_MAX, INT64_MAX, 65536};
        struct manifest manifest;
        memcpy(mutated, bytes, size);
        for (uint64_t i = fixture_random(&state) % 3; i < 3; i++) {
            const size_t at = 64 + fixture_random(&state) % (size - 64 - 8);
            if (fixture_random(&state) % 2)
                format_put64(mutated + at / 8 * 8, values[fixture_random(&state) % 10]);
            else
                format_put32(mutated + at / 4 * 4, (uint32_t)values[fixture_random(&state) % 10]);
        }
        sign(mutated, size);
        const int code = manifest_read(&fixture.storage, &manifest);
        CHECK(code == OMENDB_OK || code == OMENDB_CORRUPT);
        read += code == OMENDB_OK;
        refused += code != OMENDB_OK;
        manifest_destroy(&fixture.memory, &manifest);
        CHECK_EQ_INT(fixture_held(), 0);
    }
    CHECK(read > 100 && refused > 100);
    free(bytes);
    free(mutated);
    fixture_end();
}

TEST(manifest_with_a_curve_that_is_none_is_refused)
{
    struct sample sample;
    uint8_t curve[FORMAT_CALIBRATION_BYTES + 3 * FORMAT_CURVE_BYTES];
    static const struct {
        size_t at;
        uint32_t value;
    } lies[] = {{FORMAT_CALIBRATION_ENTRIES, 0},
                {FORMAT_CALIBRATION_ENTRIES, 4},
                {FORMAT_CALIBRATION_ENTRIES, UINT32_MAX},
                {FORMAT_CALIBRATION_BYTES + FORMAT_CURVE_K, 0},
                {FORMAT_CALIBRATION_BYTES + FORMAT_CURVE_EF, 65},
                {FORMAT_CALIBRATION_BYTES + FORMAT_CURVE_LOW, UINT32_MAX}, /* NaN */
                {FORMAT_CALIBRATION_BYTES + FORMAT_CURVE_LOW, 0x3f800000},
                {FORMAT_CALIBRATION_BYTES + FORMAT_CURVE_COST, 0},
                {FORMAT_CALIBRATION_BYTES + FORMAT_CURVE_COST, 601}};
    fixture_begin(OMENDB_IO_MAP);
    sample_make(&sample, 5);
    sample.calibration.entries[1].low = 0.5f; /* below the first */
    CHECK_EQ_INT(manifest_write(&fixture.storage, &sample.manifest), OMENDB_MISUSE);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    const size_t size = (size_t)fixture_file_size("MANIFEST-5");
    uint8_t *bytes = malloc(size), *at = bytes;
    fixture_file_read("MANIFEST-5", 0, bytes, size);
    sample_make(&sample, 5);
    calibration_encode(&sample.calibration, curve);
    while (memcmp(at, curve, sizeof curve) != 0)
        at++;
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        const uint32_t truth = format_get32(at + lies[i].at);
        format_put32(at + lies[i].at, lies[i].value);
        sign(bytes, size);
        CHECK_EQ_INT(sample_read(5), OMENDB_CORRUPT);
        CHECK(strstr(error_text(), "curve") != NULL);
        format_put32(at + lies[i].at, truth);
    }
    sign(bytes, size);
    CHECK_EQ_INT(sample_read(5), OMENDB_OK);
    free(bytes);
    fixture_end();
}

TEST(manifest_of_a_later_format_is_refused)
{
    struct manifest manifest;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    const size_t size = (size_t)fixture_file_size("MANIFEST-5");
    uint8_t *bytes = malloc(size);
    fixture_file_read("MANIFEST-5", 0, bytes, size);
    format_put32(bytes + FORMAT_HEADER_VERSION, FORMAT_VERSION + 1);
    sign(bytes, size);
    CHECK_EQ_INT(sample_read(5), OMENDB_FORMAT);
    format_put32(bytes + FORMAT_HEADER_VERSION, FORMAT_VERSION);
    format_put32(bytes + FORMAT_HEADER_REFUSE, 1);
    sign(bytes, size);
    CHECK_EQ_INT(sample_read(5), OMENDB_FORMAT);
    format_put32(bytes + FORMAT_HEADER_REFUSE, 0);
    format_put32(bytes + FORMAT_HEADER_IGNORE, 1);
    format_put32(bytes + FORMAT_HEADER_READ_ONLY, 8);
    sign(bytes, size);
    CHECK_EQ_INT(manifest_read(&fixture.storage, &manifest), OMENDB_OK);
    CHECK_EQ_INT(manifest.read_only_features, 8);
    manifest_destroy(&fixture.memory, &manifest);
    free(bytes);
    fixture_end();
}

/* ---------------------------------------------------------------------------------------------------
 * what must not be written */

static void spoil(struct sample *sample, int how)
{
    struct manifest_collection *collections = sample->collections;
    switch (how) {
    case 0:
        memset(collections[1].name, 0, sizeof collections[1].name);
        break;
    case 1:
        collections[1].name[0] = 'a' - 1;
        break; /* out of order */
    case 2:
        snprintf(collections[1].name, sizeof collections[1].name, "a");
        break;
    case 3:
        collections[1].name[1] = '\n';
        break;
    case 4:
        memset(collections[2].name, 'x', sizeof collections[2].name);
        break;
    case 5:
        collections[0].id = 77;
        break;
    case 6:
        collections[0].id = collections[2].id;
        break;
    case 7:
        sample->files[1].number = 9;
        break;
    case 8:
        sample->files[1].number = 10;
        break;
    case 9:
        sample->files[1].kind = STORAGE_WAL;
        break;
    case 10:
        sample->files[1].kind = STORAGE_SEGMENT;
        break; /* but is used as an overlay */
    case 11:
        sample->segments[0][0].file = 3;
        break;
    case 12:
        sample->segments[0][0].file = 7;
        break;
    case 13:
        sample->segments[0][0].overlay_file = 4;
        break;
    case 14:
        sample->segments[0][1].part = 2;
        break; /* of collection 2 */
    case 15:
        sample->segments[0][0].overlay_part = 8;
        break;
    case 16:
        sample->manifest.wal_number = 10;
        break;
    case 17:
        collections[0].schema.dim = 0;
        break;
    case 18:
        collections[0].schema.dim = 65536;
        break;
    case 19:
        collections[0].schema.metric = 4;
        break;
    case 20:
        collections[0].schema.metric = OMENDB_HAMMING;
        break;
    case 21:
        collections[0].schema.scalar = OMENDB_B1;
        break;
    case 22:
        collections[0].schema.scalar = 6;
        break;
    case 23:
        collections[0].schema.scale = -1;
        break;
    case 24:
        collections[0].schema.scale = INFINITY;
        break;
    case 25:
        collections[0].schema.scale = NAN;
        break;
    case 26:
        collections[0].schema.M = 1;
        break;
    case 27:
        collections[0].schema.M = 257;
        break;
    case 28:
        collections[0].schema.ef_construction = 7;
        break;
    case 29:
        collections[0].schema.ef_construction = 10001;
        break;
    case 30:
        collections[0].schema.ef = 0;
        break;
    case 31:
        collections[0].schema.ef = 100001;
        break;
    case 32:
        collections[0].schema.scalar = OMENDB_I8;
        collections[0].schema.scale = 0;
        break;
    case 33:
        collections[0].schema.scalar = OMENDB_U8;
        collections[0].schema.scale = 0;
        break;
    case 34:
        collections[0].id = 0;
        break;
    case 35:
        collections[2].name[1] = '\xc3'; /* and then nothing */
        break;
    default:
        collections[0].schema.scalar = OMENDB_U8;
        collections[0].schema.scale = 2e30f;
        break;
    }
}

TEST(manifest_that_would_be_refused_is_not_written)
{
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    for (int how = 0; how < 37; how++) {
        struct sample sample;
        sample_make(&sample, 6);
        spoil(&sample, how);
        const int code = manifest_write(&fixture.storage, &sample.manifest);
        if (code != OMENDB_MISUSE)
            fprintf(stderr, "spoiled in way %d\n", how);
        CHECK_EQ_INT(code, OMENDB_MISUSE);
        CHECK(!fixture_exists("MANIFEST-6"));
        CHECK_EQ_INT(sample_read(5), OMENDB_OK);
    }
    fixture_end();
}

/* ---------------------------------------------------------------------------------------------------
 * failures */

/* After any failing call the old root or the new one is there, and which one when the code says so.
 */
TEST(manifest_survives_every_failing_call)
{
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        int poisoned = 0, failed = 0;
        for (int after = 0;; after++) {
            fixture_begin(OMENDB_IO_MAP);
            CHECK_EQ_INT(sample_write(5), OMENDB_OK);
            fixture_fail(FIXTURE_ALL, after, for_ever, OMENDB_IOERR);
            const int code = sample_write(6), calls = fixture.calls;
            fixture_heal();
            if (calls <= after) {
                CHECK_EQ_INT(code, OMENDB_OK);
                fixture_end();
                break;
            }
            CHECK(code == OMENDB_IOERR || code == OMENDB_POISONED);
            poisoned += code == OMENDB_POISONED;
            failed++;
            CHECK(sample_read(5) == OMENDB_OK ||
                  (code == OMENDB_POISONED && sample_read(6) == OMENDB_OK));
            if (code == OMENDB_IOERR &&
                !for_ever) /* the next attempt may use the number again, or another */
                CHECK(!fixture_exists("MANIFEST-6"));
            CHECK_EQ_INT(sample_write(7), OMENDB_OK);
            CHECK_EQ_INT(sample_read(7), OMENDB_OK);
            fixture_end();
        }
        CHECK_EQ_INT(failed, 12);  /* an unlink, 4 calls for each file, a sync, a rename, a sync, */
        CHECK_EQ_INT(poisoned, 2); /* of which the last two leave it open which root there is */
    }
}

TEST(manifest_full_disk_keeps_the_former_one)
{
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    for (int after = 0; after < 3; after++) {
        fixture_fail(FIXTURE_WRITE | FIXTURE_RENAME, after, 1, OMENDB_FULL);
        CHECK_EQ_INT(sample_write(6), OMENDB_FULL);
        fixture_heal();
        CHECK(!fixture_exists("MANIFEST-6") && !fixture_exists("CURRENT.tmp"));
        CHECK_EQ_INT(sample_read(5), OMENDB_OK);
    }
    fixture_end();
}

TEST(manifest_survives_every_failing_allocation)
{
    int after = 0, code = OMENDB_NOMEM;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    for (; code != OMENDB_OK; after++) {
        fixture.allocations_left = after;
        code = sample_read(5);
        CHECK(code == OMENDB_OK || code == OMENDB_NOMEM);
        CHECK_EQ_INT(fixture_held(), 0);
    }
    CHECK(after > 6);
    for (code = OMENDB_NOMEM, after = 0; code != OMENDB_OK; after++) {
        fixture.allocations_left = after;
        code = sample_write(6);
        CHECK(code == OMENDB_OK || code == OMENDB_NOMEM);
        CHECK_EQ_INT(fixture_held(), 0);
    }
    CHECK(after > 3);
    fixture_heal();
    CHECK_EQ_INT(sample_read(6), OMENDB_OK);
    fixture_end();
}

TEST(manifest_reading_survives_every_failing_call)
{
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    for (int after = 0;; after++) {
        fixture_fail(FIXTURE_ALL, after, 0, OMENDB_IOERR);
        const int code = sample_read(5);
        CHECK_EQ_INT(fixture_held(), 0);
        if (fixture.calls <= after)
            break;
        CHECK(code == OMENDB_IOERR ||
              code == OMENDB_OK); /* a failing close after reading does not matter */
    }
    fixture_end();
}

TEST(storage_names_are_read_strictly)
{
    static const char *const wrong[] = {
        "wal-", "wal-01", "wal-+1",     "wal-1 ", "wal-18446744073709551616",
        "seg",  "LOCK",   "manifest-1", "",       "wal-100000000000000000000"};
    char name[STORAGE_NAME_BYTES];
    enum storage_kind kind;
    uint64_t number;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(!storage_parse_name(wrong[i], &kind, &number));
    for (int i = STORAGE_WAL; i <= STORAGE_MANIFEST; i++) {
        storage_name((enum storage_kind)i, UINT64_MAX, name);
        CHECK(storage_parse_name(name, &kind, &number) && (int)kind == i && number == UINT64_MAX);
    }
    CHECK_EQ_STR(name, "MANIFEST-18446744073709551615");
    CHECK(storage_parse_name("ovl-0", &kind, &number) && kind == STORAGE_OVERLAY && number == 0);
}

/* CURRENT is a name, its checksum, and nothing else. */
TEST(current_of_another_form_is_refused)
{
    char text[128], line[64];
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    static const char *const names[] = {"wal-5", "MANIFEST-05", "MANIFEST-5 ", "MANIFEST-6"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(line, sizeof line, "%s\n", names[i]);
        const int length = snprintf(text, sizeof text, "%s%08x\n", line,
                                    (unsigned)checksum_crc32c(0, line, strlen(line)));
        fixture_file_make("CURRENT", text, (size_t)length);
        CHECK_EQ_INT(sample_read(5), OMENDB_CORRUPT);
    }
    memset(text, 'M', sizeof text);
    for (size_t size = 0; size < sizeof text; size += 21) {
        fixture_file_make("CURRENT", text, size);
        CHECK_EQ_INT(sample_read(5), OMENDB_CORRUPT);
    }
    fixture_end();
}

static void publish_yet_another(void)
{
    static uint64_t number = 100;
    char name[STORAGE_NAME_BYTES];
    storage_name(STORAGE_MANIFEST, number, name);
    fixture.inner.unlink(fixture.inner.context, fixture.storage.directory, name);
    sample_write(++number);
}

static int open_what_is_gone(void *context, void *directory, const char *name, int flags,
                             void **file)
{
    if (strncmp(name, "MANIFEST-", 9) == 0 && flags == OMENDB_OPEN_READ)
        publish_yet_another();
    return fixture_open_file(context, directory, name, flags, file);
}

/* Each time that it is opened it was replaced. */
TEST(manifest_that_is_always_replaced_is_given_up)
{
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(100), OMENDB_OK);
    fixture.vfs.open = open_what_is_gone;
    struct manifest manifest;
    CHECK_EQ_INT(manifest_read(&fixture.storage, &manifest), OMENDB_CORRUPT);
    CHECK(strstr(error_text(), "which is missing") != NULL);
    fixture.vfs.open = fixture_open_file;
    CHECK_EQ_INT(manifest_read(&fixture.storage, &manifest), OMENDB_OK);
    CHECK(manifest.number >= 108);
    manifest_destroy(&fixture.memory, &manifest);
    fixture_end();
}

TEST(manifest_that_is_not_the_one_in_use_poisons)
{
    struct sample sample;
    fixture_begin(OMENDB_IO_MAP);
    sample_make(&sample, 5);
    CHECK_EQ_INT(manifest_write(&fixture.storage, &sample.manifest), OMENDB_OK);
    CHECK_EQ_INT(manifest_confirm(&fixture.storage, &sample.manifest), OMENDB_OK);
    fixture_file_truncate("MANIFEST-5", 40);
    CHECK_EQ_INT(manifest_confirm(&fixture.storage, &sample.manifest), OMENDB_POISONED);
    fixture_flip("CURRENT", 2, 1);
    CHECK_EQ_INT(manifest_confirm(&fixture.storage, &sample.manifest), OMENDB_POISONED);
    fixture_fail(FIXTURE_OPEN, 0, 0, OMENDB_IOERR);
    CHECK_EQ_INT(manifest_confirm(&fixture.storage, &sample.manifest), OMENDB_IOERR);
    fixture_fail(FIXTURE_OPEN, 0, 0, OMENDB_PERMISSION);
    CHECK_EQ_INT(manifest_confirm(&fixture.storage, &sample.manifest), OMENDB_PERMISSION);
    CHECK(error_text()[0] != '\0');
    fixture_heal();
    fixture_end();
}

TEST(manifests_are_the_same_byte_by_byte)
{
    struct sample one, other;
    int same = 1;
    fixture_begin(OMENDB_IO_MAP);
    sample_make(&one, 5);
    sample_make(&other, 5);
    CHECK_EQ_INT(manifest_compare(&fixture.memory, &one.manifest, &other.manifest, &same),
                 OMENDB_OK);
    CHECK(same);
    other.collections[0].next_id = 3;
    CHECK_EQ_INT(manifest_compare(&fixture.memory, &one.manifest, &other.manifest, &same),
                 OMENDB_OK);
    CHECK(!same);
    for (long left = 0; left < 2; left++) {
        fixture.allocations_left = left;
        CHECK_EQ_INT(manifest_compare(&fixture.memory, &one.manifest, &other.manifest, &same),
                     OMENDB_NOMEM);
    }
    fixture_heal();
    other.manifest.collection_count--;
    same = 1;
    CHECK_EQ_INT(manifest_compare(&fixture.memory, &one.manifest, &other.manifest, &same),
                 OMENDB_OK);
    CHECK(!same);
    fixture_end();
}

/* What is to be overwritten may be gone already. */
TEST(storage_overwrites_all_of_a_file_or_fails)
{
    static uint8_t bytes[3 << 16];
    memset(bytes, 0xab, sizeof bytes);
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(storage_overwrite(&fixture.storage, "seg-9"), OMENDB_OK);
    CHECK(!fixture_exists("seg-9"));
    for (int after = 0; after < 4; after++) {
        fixture_file_make("seg-9", bytes, sizeof bytes);
        fixture_fail(FIXTURE_WRITE, after, 0, OMENDB_IOERR);
        const int code = storage_overwrite(&fixture.storage, "seg-9");
        const int failed = fixture.calls > after;
        fixture_heal();
        CHECK_EQ_INT(code, failed ? OMENDB_IOERR : OMENDB_OK);
    }
    CHECK_EQ_INT(storage_overwrite(&fixture.storage, "seg-9"), OMENDB_OK);
    fixture_file_read("seg-9", 0, bytes, sizeof bytes);
    CHECK_EQ_INT(fixture_file_size("seg-9"), sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++)
        CHECK(bytes[i] == 0);
    fixture_end();
}

/* Made by hand from the text of format.h. */
TEST(manifest_bytes_are_as_documented)
{
    uint8_t bytes[512];
    char text[32];
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(sample_write(5), OMENDB_OK);
    const size_t size = (size_t)fixture_file_size("MANIFEST-5");
    CHECK_EQ_INT(size, 104 + 4 * 24 + 3 * 88 + (8 + 8 + 16) + 4 * 24 + (24 + 3 * 24) + 32 + 24);
    CHECK(size > sizeof bytes - 1);
    fixture_file_read("MANIFEST-5", 0, bytes, sizeof bytes);
    CHECK(memcmp(bytes, "OMENDBMF\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24) == 0);
    CHECK(format_get64(bytes + 24) == size && format_get64(bytes + 32) == 5);
    CHECK(
        memcmp(
            bytes + 64,
            "\355\3\0\0\0\0\0\0\2\0\0\0\0\0\0\0\12\0\0\0\0\0\0\0\115\0\0\0\0\0\0\0\4\0\0\0\3\0\0\0",
            40) == 0);
    CHECK(memcmp(bytes + 104, "\3\0\0\0\0\0\0\0\120\303\0\0\0\0\0\0\14\0\0\0\2\0\0\0", 24) == 0);
    CHECK(
        memcmp(
            bytes + 200,
            "\114\0\0\0\0\0\0\0\377\377\377\377\377\377\377\377\5\0\0\0\0\0\0\0\200\0\0\0\1\0\0\0\3"
            "\0\0\0\0\0\0\77"
            "\20\0\0\0\310\0\0\0\100\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
            "\0\0\0\0\0\0\0\0"
            "a\0\0\0\0\0\0\0",
            96) == 0);
    CHECK(memcmp(bytes + 296, "\4\0\0\0\0\0\0\0\0\0\0\0\6\0\0\0\3\0\0\0\0\0\0\0", 24) == 0);
    CHECK_EQ_INT(format_get32(bytes + 344 + 60), 24 + 3 * 24);
    CHECK(memcmp(bytes + 440,
                 "\3\0\0\0\120\0\0\0\274\2\0\0\0\0\0\0\204\3\0\0\0\0\0\0"
                 "\12\0\0\0\20\0\0\0\0\0\0\0\315\314\114\77\0\0\100\77\226\0\0\0",
                 48) == 0);
    fixture_file_read("MANIFEST-5", size - 24 - 32 - 48 - 16 - 16, bytes, 136);
    CHECK(memcmp(bytes, "\210\167\146\125\104\063\042\021\40\0\0\0\30\0\0\0docs of \xc3\xa9", 26) ==
          0);
    CHECK(format_get64(bytes + 80) == 7 && format_get64(bytes + 88) == 8);
    CHECK(format_get64(bytes + 96) == 9 && format_get64(bytes + 104) == 10);
    CHECK(memcmp(bytes + 112, "\30\0\0\0\1\0\1\0\20\0\0\0\2\0\1\1ab", 18) == 0);
    memset(text, 0, sizeof text);
    fixture_file_read("CURRENT", 0, text, (size_t)fixture_file_size("CURRENT"));
    CHECK(strncmp(text, "MANIFEST-5\n", 11) == 0 && strlen(text) == 11 + 9 && text[19] == '\n');
    CHECK_EQ_INT(strtoul(text + 11, NULL, 16), checksum_crc32c(0, "MANIFEST-5\n", 11));
    fixture_end();
}

TEST_MAIN(manifest_gives_back_what_was_published, manifest_may_be_empty,
          manifest_syncs_both_files_and_the_directory_twice, manifest_holds_many_collections,
          manifest_flip_of_any_byte_is_refused, manifest_cut_at_any_length_is_refused,
          manifest_that_is_missing_or_another_is_refused,
          manifest_that_was_replaced_meanwhile_is_read_anew, manifest_mutated_and_signed_is_bounded,
          manifest_with_a_curve_that_is_none_is_refused, manifest_of_a_later_format_is_refused,
          manifest_that_would_be_refused_is_not_written, manifest_survives_every_failing_call,
          manifest_full_disk_keeps_the_former_one, manifest_survives_every_failing_allocation,
          manifest_reading_survives_every_failing_call, storage_names_are_read_strictly,
          manifest_bytes_are_as_documented, current_of_another_form_is_refused,
          manifest_that_is_always_replaced_is_given_up, manifest_that_is_not_the_one_in_use_poisons,
          manifests_are_the_same_byte_by_byte, storage_overwrites_all_of_a_file_or_fails)
