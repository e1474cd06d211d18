/* test_golden.c: databases that earlier versions wrote are read for ever, and those of later ones
 * are told apart from damage. tests/golden/generate.c tells how they were made; what is in them is
 * compared with the text beside them. The folders are looked for from the root of the repository,
 * and opened as copies. */
#include "internals.h"

#include "support.h"
#include "test.h"

#define GOLDEN_FOLDER "tests/golden"
#define GOLDEN_BYTES  65536 /* of a folder */
#define GOLDEN_FILE   65536

/* Copies a folder of tests/golden; *path is valid until the next call. Returns its bytes, 0: it is
 * not there. */
static uint64_t golden_copy(const char *name, const char **path)
{
    static char to[4096];
    static uint8_t bytes[GOLDEN_FILE];
    char from[1024], child[5000];
    uint64_t total = 0;
    snprintf(from, sizeof from, GOLDEN_FOLDER "/%s", name);
    snprintf(to, sizeof to, "%s", support_path("golden"));
    *path = to;
    DIR *entries = opendir(from);
    if (entries == NULL || mkdir(to, 0700) != 0)
        return 0;
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(child, sizeof child, "%s/%s", from, entry->d_name);
        FILE *file = fopen(child, "rb");
        const size_t size = file == NULL ? 0 : fread(bytes, 1, sizeof bytes, file);
        if (file != NULL)
            fclose(file);
        snprintf(child, sizeof child, "%s/%s", to, entry->d_name);
        file = fopen(child, "wb");
        if (file == NULL || fwrite(bytes, 1, size, file) != size)
            total = UINT64_MAX / 2;
        if (file != NULL)
            fclose(file);
        total += size;
    }
    closedir(entries);
    return total;
}

static void golden_options(omendb_options *options, uint32_t read_only)
{
    omendb_options_init(options);
    options->threads = 0;
    options->must_exist = 1;
    options->read_only = read_only;
}

/* ------------------------------------------------------------------ the contents */

/* One that the text tells. */
struct golden_collection {
    omendb_collection *handle;
    omendb_schema schema;
    unsigned long long next, records;
    char name[64];
};

static int golden_parse_collection(const char *line, struct golden_collection *collection)
{
    omendb_schema *schema = &collection->schema;
    unsigned long long seed;
    omendb_schema_init(schema);
    const int fields =
        sscanf(line,
               "collection dim %u metric %u scalar %u scale %f M %u ef_construction %u ef %u seed "
               "%llu next %llu name %63[^\n]",
               &schema->dim, &schema->metric, &schema->scalar, &schema->scale, &schema->M,
               &schema->ef_construction, &schema->ef, &seed, &collection->next, collection->name);
    schema->seed = seed;
    return fields == 10;
}

static int golden_fail(const char *line, const char *why)
{
    fprintf(stderr, "    %.60s: %s: %s\n", line, why, omendb_errmsg());
    return 0;
}

/* Opens it with the schema that it must have, and looks at its numbers. */
static int golden_begin(omendb *db, const char *line, struct golden_collection *collection)
{
    omendb_schema found = OMENDB_SCHEMA_INIT;
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    collection->records = 0;
    if (!golden_parse_collection(line, collection))
        return golden_fail(line, "not understood");
    if (omendb_collection_open(db, collection->name, &collection->schema, &collection->handle) !=
            OMENDB_OK ||
        omendb_collection_schema(collection->handle, &found) != OMENDB_OK ||
        omendb_collection_get_stats(collection->handle, &stats) != OMENDB_OK)
        return golden_fail(line, "cannot be opened");
    if (found.seed != collection->schema.seed || stats.next_id != collection->next)
        return golden_fail(line, "has another seed or another next id");
    return 1;
}

/* The number of records, that nothing else is scanned. */
static int golden_end(struct golden_collection *collection)
{
    uint64_t count = 0, scanned = 0;
    omendb_rows *rows = NULL;
    if (collection->handle == NULL)
        return 1;
    int status = omendb_count(collection->handle, NULL, &count);
    if (status == OMENDB_OK)
        status = omendb_scan(collection->handle, NULL, 0, UINT64_MAX - 1, &rows);
    while (status == OMENDB_OK && omendb_rows_next(rows, NULL, OMENDB_F32, NULL) == OMENDB_OK)
        scanned++;
    omendb_rows_close(rows);
    omendb_collection_close(collection->handle);
    collection->handle = NULL;
    return status == OMENDB_OK && count == collection->records && scanned == count
               ? 1
               : golden_fail(collection->name, "has more records or fewer");
}

/* The vector is the stored one, bit by bit, and a search for it finds it. */
static int golden_compare_record(struct golden_collection *collection, const char *line)
{
    float expected[SUPPORT_DIM_MAX], found[SUPPORT_DIM_MAX], distance = -1;
    char *at;
    size_t count = 0;
    uint64_t nearest = 0;
    const uint64_t id = strtoull(line, &at, 10);
    for (uint32_t i = 0; i < collection->schema.dim; i++)
        expected[i] = strtof(at, &at);
    collection->records++;
    if (omendb_get(collection->handle, NULL, id, OMENDB_F32, found) != OMENDB_OK ||
        memcmp(found, expected, collection->schema.dim * sizeof *found) != 0)
        return golden_fail(line, "is not there, or another vector");
    omendb_query query = OMENDB_QUERY_INIT;
    query.vector = expected;
    query.k = 1;
    if (omendb_search(collection->handle, NULL, &query, &nearest, &distance, &count) != OMENDB_OK ||
        count != 1)
        return golden_fail(line, "cannot be searched for");
    const int exact =
        collection->schema.metric == OMENDB_L2 || collection->schema.metric == OMENDB_HAMMING;
    return !exact || distance == 0.0f ? 1 : golden_fail(line, "is not the nearest to itself");
}

/* Limits and declared fields, which follow from the number in the line. */
static int golden_compare_settings(struct golden_collection *collection, const char *line)
{
    char first[OMENDB_FIELD_MAX + 1], second[OMENDB_FIELD_MAX + 1];
    omendb_limits limits = OMENDB_LIMITS_INIT;
    omendb_field array = OMENDB_FIELD_INIT, whole = OMENDB_FIELD_INIT;
    const uint64_t number = strtoull(line + 9, NULL, 10);
    if (omendb_collection_get_limits(collection->handle, &limits) != OMENDB_OK ||
        limits.records != 1000 + number || limits.bytes != 1000000 + number ||
        limits.queries_per_second != 2000000 + number ||
        limits.writes_per_second != 3000000 + number)
        return golden_fail(line, "has other limits");
    if (omendb_collection_field(collection->handle, 0, &array, first, sizeof first) != OMENDB_OK ||
        omendb_collection_field(collection->handle, 1, &whole, second, sizeof second) !=
            OMENDB_OK ||
        strcmp(first, "array") != 0 || array.type != OMENDB_FIELD_TEXTS ||
        strcmp(second, "whole") != 0 || whole.type != OMENDB_FIELD_I64)
        return golden_fail(line, "has other fields");
    return 1;
}

/* Two lines of the text: id and key, and metadata. */
static int golden_compare_document(struct golden_collection *collection, const char *line,
                                   FILE *file)
{
    char *at, expected[512], key[128], metadata[512];
    const uint64_t id = strtoull(line + 9, &at, 10);
    uint64_t found = UINT64_MAX;
    at[strcspn(at, "\n")] = 0;
    if (fgets(expected, sizeof expected, file) == NULL)
        return golden_fail(line, "has no metadata");
    expected[strcspn(expected, "\n")] = 0;
    if (omendb_get_key(collection->handle, NULL, id, key, sizeof key, NULL) != OMENDB_OK ||
        strcmp(key, at + 1) != 0)
        return golden_fail(line, "has another key");
    if (key[0] != 0 &&
        (omendb_find(collection->handle, NULL, key, &found) != OMENDB_OK || found != id))
        return golden_fail(line, "is not found by its key");
    if (omendb_get_metadata(collection->handle, NULL, id, NULL, 0, metadata, sizeof metadata,
                            NULL) != OMENDB_OK ||
        strcmp(metadata, expected) != 0)
        return golden_fail(line, "has other metadata");
    return 1;
}

/* The line of the text about prepared transaction number `index`. */
static int golden_compare_prepared(omendb *db, size_t index, const char *line)
{
    char expected[64], found[64];
    int state = 0, expected_state = 0;
    if (sscanf(line, "prepared %d %63s", &expected_state, expected) != 2)
        return golden_fail(line, "not understood");
    if (omendb_prepared_name(db, index, found, sizeof found, &state) != OMENDB_OK ||
        strcmp(found, expected) != 0 || state != expected_state)
        return golden_fail(line, "is not there, or in another state");
    return 1;
}

/* 1 where the database holds what the text says, no more and no less. */
static int golden_compare(omendb *db, const char *name)
{
    struct golden_collection collection = {.handle = NULL};
    char path[1024], line[1024];
    uint64_t collections = 0, prepared = 0;
    omendb_stats stats = OMENDB_STATS_INIT;
    int good = 1;
    snprintf(path, sizeof path, GOLDEN_FOLDER "/%s.txt", name);
    FILE *file = fopen(path, "r");
    while (file != NULL && good && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "collection ", 11) == 0) {
            good = golden_end(&collection) && golden_begin(db, line, &collection);
            collections++;
        } else if (strncmp(line, "prepared ", 9) == 0) {
            good = golden_compare_prepared(db, prepared++, line);
        } else if (strncmp(line, "settings ", 9) == 0) {
            good = golden_compare_settings(&collection, line);
        } else if (strncmp(line, "document ", 9) == 0) {
            good = golden_compare_document(&collection, line, file);
        } else {
            good = golden_compare_record(&collection, line);
        }
    }
    good = good && golden_end(&collection);
    omendb_collection_close(collection.handle);
    if (file != NULL)
        fclose(file);
    return good && omendb_get_stats(db, &stats) == OMENDB_OK && stats.collections == collections &&
           collections > 0 &&
           omendb_prepared_name(db, prepared, line, sizeof line, NULL) == OMENDB_DONE;
}

static void golden_name(int version, char name[32])
{
    snprintf(name, 32, "format-%d", version);
}

TEST(every_format_is_read)
{
    for (int version = 1; version <= OMENDB_FORMAT_VERSION; version++) {
        char name[32];
        const char *path;
        omendb *db = NULL;
        omendb_options options;
        golden_name(version, name);
        const uint64_t bytes = golden_copy(name, &path);
        CHECK(bytes > 0 && bytes <= GOLDEN_BYTES);
        golden_options(&options, 1);
        for (options.io = OMENDB_IO_MAP; options.io <= OMENDB_IO_PREAD; options.io++) {
            CHECK_EQ_INT(omendb_open(path, &options, &db), OMENDB_OK);
            CHECK(golden_compare(db, name));
            CHECK_EQ_INT(support_check(db), OMENDB_OK);
            CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        }
    }
}

/* Opening it replays the log, closing it writes that into segments; merges rewrite everything. */
TEST(every_format_is_written_on)
{
    for (int version = 1; version <= OMENDB_FORMAT_VERSION; version++) {
        char name[32];
        const char *path;
        omendb *db = NULL;
        omendb_options options;
        omendb_collection *collection = NULL;
        float vector[5], expected[5];
        golden_name(version, name);
        CHECK(golden_copy(name, &path) > 0);
        golden_options(&options, 0);
        CHECK_EQ_INT(omendb_open(path, &options, &db), OMENDB_OK);
        CHECK(golden_compare(db, name));
        CHECK_EQ_INT(support_check(db), OMENDB_OK);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        CHECK_EQ_INT(omendb_open(path, &options, &db), OMENDB_OK);
        CHECK(golden_compare(db, name));
        CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
        CHECK(golden_compare(db, name));
        CHECK_EQ_INT(omendb_collection_open(db, "f32-l2", NULL, &collection), OMENDB_OK);
        CHECK_EQ_INT(support_put(collection, NULL, 333333, 3, 5), OMENDB_OK);
        omendb_collection_close(collection);
        CHECK_EQ_INT(omendb_collection_drop(db, "f16-ip"), OMENDB_OK);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
        CHECK_EQ_INT(omendb_open(path, &options, &db), OMENDB_OK);
        CHECK_EQ_INT(support_check(db), OMENDB_OK);
        CHECK_EQ_INT(omendb_collection_open(db, "f16-ip", NULL, &collection), OMENDB_NOTFOUND);
        CHECK_EQ_INT(omendb_collection_open(db, "f32-l2", NULL, &collection), OMENDB_OK);
        CHECK_EQ_INT(omendb_get(collection, NULL, 333333, OMENDB_F32, vector), OMENDB_OK);
        support_vector(3, 5, expected);
        CHECK(memcmp(vector, expected, sizeof vector) == 0);
        CHECK_EQ_INT(omendb_delete(collection, NULL, 8), OMENDB_BUSY);
        CHECK_EQ_INT(omendb_commit_prepared(db, "waits"), OMENDB_OK);
        CHECK_EQ_INT(omendb_get(collection, NULL, 8, OMENDB_F32, vector), OMENDB_NOTFOUND);
        CHECK_EQ_INT(omendb_get(collection, NULL, 200, OMENDB_F32, vector), OMENDB_OK);
        support_vector(6000, 5, expected);
        CHECK(memcmp(vector, expected, sizeof vector) == 0);
        omendb_collection_close(collection);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    }
}

TEST(every_format_is_salvaged)
{
    for (int version = 1; version <= OMENDB_FORMAT_VERSION; version++) {
        char name[32], to[4096];
        const char *path;
        omendb *db = NULL;
        omendb_options options;
        omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
        golden_name(version, name);
        snprintf(to, sizeof to, "%s", support_path("salvaged"));
        CHECK(golden_copy(name, &path) > 0);
        golden_options(&options, 0);
        CHECK_EQ_INT(omendb_salvage(path, to, &options, NULL, NULL, &result), OMENDB_OK);
        CHECK_EQ_INT(result.problems, 0);
        CHECK_EQ_INT(omendb_open(to, &options, &db), OMENDB_OK);
        CHECK(golden_compare(db, name));
        CHECK_EQ_INT(support_check(db), OMENDB_OK);
        CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
    }
}

/* ------------------------------------------------------------------ nothing is missing in them */

struct golden_kinds {
    uint32_t sections;   /* a bit a type */
    uint32_t parts_most; /* of a file */
    uint32_t changes;    /* a bit a kind */
    int has_curve, has_id;
};

static int golden_open_storage(const char *path, struct storage *storage, struct memory *memory)
{
    memory_init(memory, NULL, 0);
    memset(storage, 0, sizeof *storage);
    storage->vfs = omendb_default_vfs();
    storage->memory = memory;
    storage->io = BLOCKS_IO_CHECK;
    return storage->vfs->open_directory(NULL, path, 0, &storage->directory);
}

static int golden_note_record(void *context, const struct wal_record *record)
{
    struct golden_kinds *kinds = context;
    struct commit_logged logged;
    if (commit_decode_head(record->payload, record->size, &logged))
        kinds->changes |=
            logged.documents && logged.kind != CHANGE_UPDATE
                ? 1u << (logged.kind == CHANGE_ADD ? CHANGE_ADD_DOCUMENTS : CHANGE_PUT_DOCUMENTS)
                : 1u << logged.kind;
    return OMENDB_OK;
}

static int golden_note(const char *path, struct golden_kinds *kinds)
{
    struct storage storage;
    struct memory memory;
    struct manifest manifest;
    memset(kinds, 0, sizeof *kinds);
    int code = golden_open_storage(path, &storage, &memory);
    if (code != OMENDB_OK)
        return code;
    code = manifest_read(&storage, &manifest);
    kinds->has_id = manifest.database != 0;
    for (uint32_t i = 0; i < manifest.collection_count; i++)
        kinds->has_curve |= manifest.collections[i].calibration != NULL;
    for (uint32_t i = 0; i < manifest.file_count && code == OMENDB_OK; i++) {
        const struct manifest_file *entry = &manifest.files[i];
        struct segment_file *file;
        code = segment_file_open(&storage, (enum storage_kind)entry->kind, entry->number,
                                 entry->size, entry->footer_crc, &file);
        for (uint32_t part = 0; code == OMENDB_OK && part < file->part_count; part++)
            for (uint32_t type = 1; type < SECTION_TYPES; type++)
                if (segment_section(file, part, (enum section_type)type).length != 0)
                    kinds->sections |= 1u << type;
        if (code == OMENDB_OK && file->part_count > kinds->parts_most)
            kinds->parts_most = file->part_count;
        segment_file_close(file);
    }
    struct wal_replay replay = {.number = manifest.wal_number, .final_length = WAL_LENGTH_UNKNOWN};
    if (code == OMENDB_OK)
        code = wal_read(&storage, &replay, golden_note_record, kinds);
    manifest_destroy(&memory, &manifest);
    storage.vfs->close_directory(NULL, storage.directory);
    return code;
}

TEST(the_present_format_shows_every_kind_of_section_and_change)
{
    struct golden_kinds kinds;
    char name[32];
    const char *path;
    golden_name(OMENDB_FORMAT_VERSION, name);
    CHECK(golden_copy(name, &path) > 0);
    CHECK_EQ_INT(golden_note(path, &kinds), OMENDB_OK);
    for (uint32_t type = 1; type < SECTION_TYPES; type++)
        /* A segment has a curve from 4,000 rows on and a model of its ids from 1,024 on, which is
         * more than a golden file may have. The types between the two are none. */
        CHECK((type >= SECTION_CALIBRATION && type <= SECTION_ID_MODEL) ||
              (kinds.sections >> type & 1) != 0);
    for (uint32_t kind = CHANGE_ADD; kind <= CHANGE_UPDATE; kind++)
        CHECK((kinds.changes >> kind & 1) != 0);
    CHECK(kinds.has_curve && kinds.has_id);
    CHECK(kinds.parts_most >= 16);
}

/* ------------------------------------------------------------------ later formats */

static int golden_is_refused(const char *path, uint32_t read_only)
{
    omendb *db = NULL;
    omendb_options options;
    golden_options(&options, read_only);
    const int status = omendb_open(path, &options, &db);
    if (status == OMENDB_FORMAT && db == NULL && strstr(omendb_errmsg(), "later") != NULL)
        return 1;
    fprintf(stderr, "    %s: %s\n", omendb_strerror(status), omendb_errmsg());
    omendb_close(db);
    return 0;
}

TEST(later_formats_and_features_that_forbid_opening_are_refused)
{
    const char *const names[] = {"future-version", "future-refuse"};
    for (size_t i = 0; i < 2; i++) {
        const char *path;
        char to[4096];
        omendb_options options;
        golden_options(&options, 0);
        snprintf(to, sizeof to, "%s", support_path("salvaged"));
        CHECK(golden_copy(names[i], &path) > 0);
        CHECK(golden_is_refused(path, 0));
        CHECK(golden_is_refused(path, 1));
        CHECK_EQ_INT(omendb_salvage(path, to, &options, NULL, NULL, NULL), OMENDB_FORMAT);
    }
}

TEST(features_that_forbid_writing_leave_reading)
{
    const char *path;
    omendb *db = NULL;
    omendb_options options;
    omendb_collection *collection = NULL;
    float vector[3], expected[3];
    CHECK(golden_copy("future-read-only", &path) > 0);
    CHECK(golden_is_refused(path, 0));
    golden_options(&options, 1);
    CHECK_EQ_INT(omendb_open(path, &options, &db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(db, "one", NULL, &collection), OMENDB_OK);
    CHECK_EQ_INT(omendb_get(collection, NULL, 7, OMENDB_F32, vector), OMENDB_OK);
    support_vector(7, 3, expected);
    CHECK(memcmp(vector, expected, sizeof vector) == 0);
    CHECK_EQ_INT(support_put(collection, NULL, 8, 8, 3), OMENDB_READONLY);
    omendb_collection_close(collection);
    CHECK_EQ_INT(omendb_close(db), OMENDB_OK);
}

/* Patches the header of a file, with its checksum. */
static int golden_patch(const char *path, const char *name, enum format_header field,
                        uint32_t value)
{
    char child[5000];
    uint8_t header[FORMAT_HEADER_BYTES];
    snprintf(child, sizeof child, "%s/%s", path, name);
    FILE *file = fopen(child, "r+b");
    if (file == NULL)
        return 0;
    int good = fread(header, 1, sizeof header, file) == sizeof header;
    format_put32(header + field, value);
    storage_header_end(header);
    good = good && fseek(file, 0, SEEK_SET) == 0 &&
           fwrite(header, 1, sizeof header, file) == sizeof header;
    return fclose(file) == 0 && good;
}

/* Segments, overlays and logs say so for themselves. */
TEST(each_file_of_a_later_format_is_refused)
{
    char name[32], folder[64], file[256];
    const char *path;
    size_t patched = 0;
    golden_name(OMENDB_FORMAT_VERSION, name);
    snprintf(folder, sizeof folder, GOLDEN_FOLDER "/%s", name);
    DIR *entries = opendir(folder);
    CHECK(entries != NULL);
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        snprintf(file, sizeof file, "%s", entry->d_name);
        if (strchr(file, '-') == NULL)
            continue;
        for (uint32_t read_only = 0; read_only < 2; read_only++) {
            CHECK(golden_copy(name, &path) > 0);
            CHECK(golden_patch(path, file, FORMAT_HEADER_VERSION, OMENDB_FORMAT_VERSION + 1));
            CHECK(golden_is_refused(path, read_only));
            CHECK(golden_copy(name, &path) > 0);
            CHECK(golden_patch(path, file, FORMAT_HEADER_REFUSE, 4));
            CHECK(golden_is_refused(path, read_only));
        }
        patched++;
    }
    closedir(entries);
    CHECK(patched >= 5);
}

TEST_MAIN(every_format_is_read, every_format_is_written_on, every_format_is_salvaged,
          the_present_format_shows_every_kind_of_section_and_change,
          later_formats_and_features_that_forbid_opening_are_refused,
          features_that_forbid_writing_leave_reading, each_file_of_a_later_format_is_refused)
