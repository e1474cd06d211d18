/* check.c: every checksum and every structural invariant, while the database is in use.
 *
 * maintenance_mutex is held: the manifest and the segments stay as they are; commits and searches
 * go on. */
#include "database.h"

#include <stdio.h>
#include <string.h>

struct check {
    omendb *db;
    void (*report)(void *context, const char *line);
    void *context;
    uint64_t problems;
    const struct collection *collection; /* being looked at */
    const struct segment *segment;
};

static void check_problem(void *context, const char *sentence)
{
    struct check *check = context;
    char line[768];
    check->problems++;
    if (check->report == NULL)
        return;
    if (check->segment != NULL)
        snprintf(line, sizeof line, "collection \"%s\": seg-%llu, part %u: %s",
                 check->collection->name, (unsigned long long)check->segment->file->entry.number,
                 check->segment->part, sentence);
    else if (check->collection != NULL)
        snprintf(line, sizeof line, "collection \"%s\": %s", check->collection->name, sentence);
    else
        snprintf(line, sizeof line, "%s", sentence);
    check->report(check->context, line);
}

/* An error while looking is a problem, too, unless looking itself is impossible. */
static int check_error(struct check *check, int code)
{
    if (code != OMENDB_CORRUPT && code != OMENDB_FORMAT && code != OMENDB_NOTFOUND)
        return code;
    check_problem(check, error_text());
    return OMENDB_OK;
}

static int check_files(struct check *check)
{
    const struct manifest *manifest = &check->db->published;
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < manifest->file_count && code == OMENDB_OK; i++) {
        const struct manifest_file *entry = &manifest->files[i];
        struct segment_file *file = NULL;
        code = segment_file_open(&check->db->storage, (enum storage_kind)entry->kind, entry->number,
                                 entry->size, entry->footer_crc, &file);
        if (code == OMENDB_OK)
            code = segment_file_check(file, check_problem, check);
        segment_file_close(file);
        code = check_error(check, code);
    }
    return code;
}

static int check_manifest(struct check *check)
{
    struct manifest manifest = {0};
    int code = manifest_read(&check->db->storage, &manifest);
    if (code == OMENDB_OK && manifest.number != check->db->published.number)
        check_problem(check, "CURRENT names another manifest than the one in use");
    manifest_destroy(&check->db->memory, &manifest);
    return check_error(check, code);
}

static int check_record(void *context, const struct wal_record *record)
{
    (void)context;
    (void)record;
    return OMENDB_OK;
}

static int check_log(struct check *check)
{
    omendb *db = check->db;
    platform_mutex_lock(&db->commit_mutex);
    uint64_t number = db->wal != NULL ? db->wal->number : 0;
    uint64_t length = db->wal != NULL ? db->wal->length : 0;
    platform_mutex_unlock(&db->commit_mutex);
    if (number == 0)
        return OMENDB_OK;
    struct wal_replay replay = {.number = number, .final_length = length};
    return check_error(check, wal_read(&db->storage, &replay, check_record, NULL));
}

/* Every row's id is found through the index and the filter, and bounded by the range of ids. */
static int check_ids(struct check *check, const struct segment *segment)
{
    for (uint32_t row = 0; row < segment->info.rows; row++) {
        uint64_t id, cursor = 0;
        uint32_t found;
        int code = segment_id(segment, row, &id);
        if (code != OMENDB_OK)
            return code;
        do {
            code = segment_find(segment, id, &cursor, &found);
        } while (code == OMENDB_OK && found != row && found != GRAPH_NO_ROW);
        if (code != OMENDB_OK)
            return code;
        if (found != row) {
            char text[128];
            snprintf(text, sizeof text,
                     "row %u has id %llu, which the index of ids does not lead to", row,
                     (unsigned long long)id);
            check_problem(check, text);
            return OMENDB_OK;
        }
    }
    return OMENDB_OK;
}

static int check_segment(struct check *check, const struct segment *segment)
{
    check->segment = segment;
    int code = blocks_touch(&segment->file->file->blocks, 0, segment->file->file->blocks.size);
    if (code == OMENDB_OK)
        code = check_ids(check, segment);
    if (code == OMENDB_OK && segment->calibration == NULL &&
        segment_section(segment->file->file, segment->part, SECTION_CALIBRATION).length != 0)
        check_problem(check, "its curve of recall is none");
    if (code == OMENDB_OK && segment->info.indexed_rows != 0)
        code = graph_check(&segment->graph, segment->info.indexed_rows, &check->db->memory,
                           check_problem, check);
    code = check_error(check, code);
    check->segment = NULL;
    return code;
}

static int check_compare_ids(const void *left, const void *right)
{
    const uint64_t *a = left, *b = right;
    return *a < *b ? -1 : *a > *b;
}

/* Ids of all visible rows; a second row of the same id would be a record with two vectors. */
static int check_unique(struct check *check, const struct version *version, uint64_t commit)
{
    struct memory *memory = &check->db->memory;
    uint64_t capacity, count = 0;
    int code = version_count(version, commit, &capacity);
    uint64_t *ids = memory_array(memory, (size_t)capacity, sizeof *ids);
    if (ids == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        const struct memtable *memtable = version->memtables[i];
        uint32_t rows = memtable_visible_rows(memtable, commit);
        for (uint32_t row = 0; row < rows && count < capacity; row++) {
            uint64_t end = tombstones_get(memtable->tombstones, row);
            if (end == 0 || end > commit)
                ids[count++] = memtable_id(memtable, row);
        }
    }
    for (uint32_t i = 0; i < version->segment_count && code == OMENDB_OK; i++) {
        const struct segment *segment = version->segments[i];
        for (uint32_t row = 0; row < segment->info.rows && count < capacity && code == OMENDB_OK;
             row++) {
            if (segment_row_visible(segment, row, commit))
                code = segment_id(segment, row, &ids[count++]);
        }
    }
    if (code == OMENDB_OK && count > 1)
        sort_array(ids, (size_t)count, sizeof *ids, check_compare_ids);
    for (uint64_t i = 1; i < count && code == OMENDB_OK; i++) {
        char text[96];
        if (ids[i] != ids[i - 1])
            continue;
        snprintf(text, sizeof text, "id %llu has two visible rows", (unsigned long long)ids[i]);
        check_problem(check, text);
    }
    memory_free(memory, ids, (size_t)capacity * sizeof *ids);
    return code;
}

static int check_collection(struct check *check, struct collection *collection)
{
    uint64_t commit;
    struct version *version = version_acquire_newest(collection, &commit);
    int code = OMENDB_OK;
    check->collection = collection;
    for (uint32_t i = 0; i < version->segment_count && code == OMENDB_OK; i++)
        code = check_segment(check, version->segments[i]);
    for (uint32_t i = 0; i < version->memtable_count && code == OMENDB_OK; i++) {
        struct graph_view view;
        uint32_t indexed = atomic_load(&version->memtables[i]->indexed);
        graph_get_view(version->memtables[i]->graph, &view);
        code = indexed == 0 ? OMENDB_OK
                            : graph_check(&view, indexed, &check->db->memory, check_problem, check);
    }
    if (code == OMENDB_OK)
        code = check_error(check, check_unique(check, version, commit));
    check->collection = NULL;
    version_release(version);
    return code;
}

static int check_collections(struct check *check)
{
    omendb *db = check->db;
    int code = OMENDB_OK;
    for (size_t i = 0; code == OMENDB_OK; i++) {
        platform_mutex_lock(&db->commit_mutex);
        struct collection *collection =
            i < db->catalog.count ? collection_reference(db->catalog.items[i]) : NULL;
        platform_mutex_unlock(&db->commit_mutex);
        if (collection == NULL)
            break;
        code = check_collection(check, collection);
        collection_release(collection);
    }
    return code;
}

OMENDB_INTERNAL int check_run(omendb *db, void (*report)(void *context, const char *line),
                              void *context, uint64_t *problems)
{
    struct check check = {.db = db, .report = report, .context = context};
    platform_mutex_lock(&db->maintenance_mutex);
    int code = OMENDB_OK;
    if (!db->in_memory)
        code = check_manifest(&check);
    if (code == OMENDB_OK)
        code = check_files(&check);
    if (code == OMENDB_OK)
        code = check_log(&check);
    if (code == OMENDB_OK)
        code = check_collections(&check);
    platform_mutex_unlock(&db->maintenance_mutex);
    if (problems != NULL)
        *problems = check.problems;
    return code;
}
