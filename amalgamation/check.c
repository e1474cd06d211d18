/* check.c: every checksum and every structural invariant, while the database is in use.
 *
 * maintenance_mutex is held: the manifest and the segments stay as they are; commits and searches
 * go on.
 *
 * Files come first, block by block. Each bad block is one problem, told with the collections that
 * have bytes of it; what lives in such a block is not looked at any more, as it would tell of the
 * same damage once more. */
#include "column_lists.h"
#include "database.h"

#include <stdio.h>
#include <string.h>

#define CHECK_OWNERS_BYTES 640 /* of names in a line: two of the longest, or many short ones */

/* One that lies, with a byte at least, in a bad block. */
struct check_part {
    uint64_t file;
    uint32_t part;
};

struct check {
    omendb *db;
    void (*report)(void *context, const char *line);
    void *context;
    uint64_t problems;
    struct manifest manifest;            /* collections of the published one */
    const struct segment_file *file;     /* being read */
    const struct collection *collection; /* being looked at */
    const struct segment *segment;
    struct check_part *damaged; /* of segments */
    size_t damaged_count, damaged_capacity;
    int starved; /* there was no memory for one of them */
};

static void check_problem(void *context, const char *sentence)
{
    struct check *check = context;
    char line[CHECK_OWNERS_BYTES + ERROR_TEXT_BYTES + 64];
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

/* ------------------------------------------------------------------ files */

struct check_owners {
    char text[CHECK_OWNERS_BYTES];
    size_t length;
    uint32_t named, more;
};

static void check_name_owner(struct check_owners *owners, const char *name)
{
    size_t room = sizeof owners->text - owners->length, quotes = owners->named == 0 ? 2 : 4;
    if (owners->more != 0 || strlen(name) + quotes >= room) {
        owners->more++;
        return;
    }
    owners->length += (size_t)snprintf(owners->text + owners->length, room, "%s\"%s\"",
                                       owners->named == 0 ? "" : ", ", name);
    owners->named++;
}

static int check_part_has_block(const struct segment_file *file, uint32_t part, uint64_t block)
{
    uint64_t begin = block << BLOCK_SHIFT, end = begin + BLOCK_BYTES;
    for (int type = 1; type < SECTION_TYPES && part < file->part_count; type++) {
        struct section_range range = segment_section(file, part, (enum section_type)type);
        if (range.length != 0 && range.offset < end && range.offset + range.length > begin)
            return 1;
    }
    return 0;
}

static int check_is_damaged(const struct check *check, uint64_t file, uint32_t part)
{
    for (size_t i = 0; i < check->damaged_count; i++) {
        if (check->damaged[i].file == file && check->damaged[i].part == part)
            return 1;
    }
    return 0;
}

static void check_note_damaged(struct check *check, uint64_t file, uint32_t part)
{
    struct memory *memory = &check->db->memory;
    size_t count = check->damaged_count, capacity = check->damaged_capacity;
    if (check_is_damaged(check, file, part))
        return;
    if (count == capacity) {
        size_t larger = capacity * 2 + 16;
        struct check_part *moved =
            memory_resize(memory, check->damaged, capacity * sizeof *moved, larger * sizeof *moved);
        check->starved |= moved == NULL;
        if (moved == NULL)
            return;
        check->damaged = moved;
        check->damaged_capacity = larger;
    }
    check->damaged[check->damaged_count++] = (struct check_part){file, part};
}

/* Whether the collection has bytes of the block of the file that is read. */
static int check_find_parts(struct check *check, const struct manifest_collection *collection,
                            uint64_t block)
{
    const struct segment_file *file = check->file;
    int found = 0;
    for (uint32_t i = 0; i < collection->segment_count; i++) {
        const struct manifest_segment *segment = &collection->segments[i];
        if (segment->overlay_file == file->number)
            found |= check_part_has_block(file, segment->overlay_part, block);
        if (segment->file != file->number || !check_part_has_block(file, segment->part, block))
            continue;
        check_note_damaged(check, file->number, segment->part);
        found = 1;
    }
    return found;
}

/* One line, with the names of the collections that have bytes of the block. */
static void check_bad_block(void *context, uint64_t block, const char *sentence)
{
    struct check *check = context;
    const struct manifest *manifest = &check->manifest;
    struct check_owners owners = {.length = 0};
    char line[CHECK_OWNERS_BYTES + ERROR_TEXT_BYTES + 64], more[32] = "", text[ERROR_TEXT_BYTES];
    /* Noting what is damaged may say something of its own. */
    snprintf(text, sizeof text, "%s", sentence);
    for (uint32_t i = 0; i < manifest->collection_count; i++) {
        if (check_find_parts(check, &manifest->collections[i], block))
            check_name_owner(&owners, manifest->collections[i].name);
    }
    if (owners.more != 0)
        snprintf(more, sizeof more, " and %u more", owners.more);
    if (owners.named == 0)
        snprintf(line, sizeof line, "%s", text);
    else
        snprintf(line, sizeof line, "collection%s %s%s: %s",
                 owners.named + owners.more == 1 ? "" : "s", owners.text, more, text);
    check_problem(check, line);
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
        check->file = file;
        if (code == OMENDB_OK)
            code = segment_file_check(file, check_bad_block, check);
        check->file = NULL;
        segment_file_close(file);
        code = check_error(check, code);
    }
    if (code == OMENDB_OK && check->starved)
        code = error_set(OMENDB_NOMEM, "no memory to note which segments are damaged");
    return code;
}

/* A reader may be behind CURRENT; the manifest that it holds is there. */
static int check_manifest(struct check *check)
{
    omendb *db = check->db;
    struct manifest manifest = {0};
    int code = db->read_only ? manifest_read_number(&db->storage, db->published.number, &manifest)
                             : manifest_read(&db->storage, &manifest);
    if (code == OMENDB_OK && manifest.number != db->published.number)
        check_problem(check, "CURRENT names another manifest than the one in use");
    manifest_destroy(&check->db->memory, &manifest);
    return check_error(check, code);
}

/* A commit of a prepared transaction is one change; its own changes are followed as far as their
 * collections are there. commit_mutex. */
static const char *check_prepared(struct check *check, const struct wal_record *record,
                                  struct prepared_logged *logged)
{
    size_t used, body = 0;
    const char *wrong = prepared_decode(record->payload, record->size, logged, &used);
    if (wrong != NULL || used != record->size)
        return wrong != NULL ? wrong : "is shorter than its record";
    for (size_t at = 0; at < logged->size; at += body) {
        struct commit_logged change;
        if (!commit_decode_head(logged->changes + at, logged->size - at, &change) ||
            !commit_is_of_records(change.kind))
            return "has a change of an unknown kind";
        const struct collection *collection = catalog_by_id(&check->db->catalog, change.collection);
        if (collection == NULL)
            return NULL;
        body = commit_body_bytes(&change, collection->vector_bytes);
        if (body > change.left)
            return "has a change that is longer than all of them";
        body += logged->size - at - change.left;
    }
    return NULL;
}

static int check_record(void *context, const struct wal_record *record)
{
    struct check *check = context;
    struct commit_logged head;
    struct prepared_logged logged;
    if (record->type != WAL_COMMIT || !commit_decode_head(record->payload, record->size, &head) ||
        head.kind < CHANGE_PREPARE || head.kind > CHANGE_REMEMBER)
        return OMENDB_OK;
    platform_mutex_lock(&check->db->commit_mutex);
    const char *wrong = check_prepared(check, record, &logged);
    platform_mutex_unlock(&check->db->commit_mutex);
    if (wrong == NULL)
        return OMENDB_OK;
    char text[512];
    snprintf(text, sizeof text, "log: offset %llu: commit %llu: the prepared transaction \"%s\" %s",
             (unsigned long long)record->offset, (unsigned long long)record->sequence, logged.name,
             wrong);
    check_problem(check, text);
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
    return check_error(check, wal_read(&db->storage, &replay, check_record, check));
}

/* ------------------------------------------------------------------ collections */

static int check_touch_part(struct segment_file *file, uint32_t part)
{
    int code = OMENDB_OK;
    for (int type = 1; type < SECTION_TYPES && code == OMENDB_OK; type++) {
        struct section_range range = segment_section(file, part, (enum section_type)type);
        if (range.length != 0)
            code = blocks_touch(&file->blocks, range.offset, range.length);
    }
    return code;
}

/* Every row's id is found through the index and the filter, and bounded by the range of ids. */
static int check_ids(struct check *check, struct segment *segment)
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

/* Every document is one, and the index of keys has as many places as there are keys: that each is
 * found, check_keys tells. */
static int check_documents(struct check *check, const struct segment *segment)
{
    uint64_t keys = 0;
    int code = OMENDB_OK;
    for (uint32_t row = 0; row < segment->info.rows && code == OMENDB_OK; row++) {
        const uint8_t *document;
        uint32_t size;
        code = segment_document(segment, row, &document);
        if (code == OMENDB_OK)
            keys += document_key(document, &size) != NULL;
    }
    if (code == OMENDB_OK && keys != segment->key_hashes.length / sizeof(uint64_t))
        check_problem(check, "its index of keys is not one of the keys of its rows");
    return code;
}

/* Whether the values that a column has of a row are those of its document: of an array each text
 * once, in order; of an empty one none, which the number of values stands for. */
static int check_column_row(const struct column *column, const struct document_value *value,
                            uint32_t row)
{
    struct document_value text = {.type = DOCUMENT_TEXT, .count = 1}, stored;
    uint32_t first, last, at = 0, rank, found = 0;
    column_elements(column, row, &first, &last);
    if (value->type == DOCUMENT_NULL || (value->type == DOCUMENT_TEXTS && value->count == 0))
        return value->type == DOCUMENT_NULL
                   ? first == last
                   : last - first == 1 && column_rank(column, first) == column->values;
    if (value->type != DOCUMENT_TEXTS)
        return last - first == 1 && column_rank(column, first) < column->values &&
               column_value(column, column_rank(column, first), &stored) == OMENDB_OK &&
               document_compare(&stored, value) == 0;
    while (document_next_text(value, &at, &text.text, &text.size)) {
        if (column_bound(column, &text, 0, &rank) != OMENDB_OK)
            return 0;
        uint32_t i = first;
        while (i < last && column_rank(column, i) != rank)
            i++;
        found += i < last;
        if (i == last || rank >= column->values ||
            column_value(column, rank, &stored) != OMENDB_OK ||
            document_compare(&stored, &text) != 0)
            return 0;
    }
    return found >= last - first;
}

/* How many places the lists of rows have of a row that its own ranks do not lead to, or the other
 * way round: each rank's list ascends and has as many rows as have the rank. */
static int check_column_lists(const struct column *column)
{
    uint64_t listed = 0;
    for (uint32_t rank = 0; rank < column->values; rank++) {
        struct column_walk walk;
        uint32_t row, first, last, before = 0, found = 0;
        column_walk_begin(column, rank, &walk);
        for (; column_walk_next(column, &walk, &row); found++) {
            if (row >= column->rows || (found != 0 && row <= before))
                return 0;
            column_elements(column, row, &first, &last);
            while (first < last && column_rank(column, first) != rank)
                first++;
            if (first == last)
                return 0;
            before = row;
        }
        listed += found;
        if (listed != column_begin(column, rank + 1))
            return 0;
    }
    return listed == column->listed;
}

static int check_column(struct check *check, const struct segment *segment,
                        const struct columns *columns, uint32_t index)
{
    const uint8_t *name, *document;
    uint32_t size;
    struct column column;
    uint64_t present = 0;
    int found = 0, good = 1;
    int code = columns_name(columns, index, &name, &size);
    if (code == OMENDB_OK)
        code = columns_find(columns, name, size, &column, &found);
    if (code != OMENDB_OK || (found && column.kind == COLUMN_NONE))
        return code;
    const uint32_t hash = document_hash_name(name, size);
    good = found && check_column_lists(&column);
    for (uint32_t row = 0; row < columns->rows && code == OMENDB_OK && good; row++) {
        struct document_value value;
        code = segment_document(segment, row, &document);
        if (code != OMENDB_OK)
            break;
        document_find(document, name, size, hash, &value);
        present += value.type != DOCUMENT_NULL;
        good = check_column_row(&column, &value, row);
    }
    if (code == OMENDB_OK && (!good || present != column.present)) {
        char text[128];
        snprintf(text, sizeof text, "its column \"%.*s\" is not that of its documents",
                 (int)(size < 64 ? size : 64), (const char *)name);
        check_problem(check, text);
    }
    return code;
}

static int check_columns(struct check *check, const struct segment *segment)
{
    struct columns columns;
    int code =
        columns_open(&segment->file->file->blocks, segment->columns, segment->info.rows, &columns);
    for (uint32_t i = 0; i < columns.count && code == OMENDB_OK; i++)
        code = check_column(check, segment, &columns, i);
    return code;
}

/* A wrong model costs time, not answers. Its section and the ids were touched. */
static void check_model(struct check *check, const struct segment *segment)
{
    const uint8_t *base = segment->file->file->blocks.base;
    if (segment->model.bytes == NULL)
        return;
    const char *wrong =
        idmodel_check(&segment->model, (const void *)(base + segment->ascending.offset));
    if (wrong != NULL) {
        char text[128];
        snprintf(text, sizeof text, "the model of its ids %s", wrong);
        check_problem(check, text);
    }
}

static int check_overlay_is_damaged(const struct check *check, const struct overlay *overlay)
{
    const struct overlay_base *base = overlay == NULL ? NULL : overlay->base;
    return base != NULL && check_is_damaged(check, base->file->entry.number, base->part);
}

/* Every document that an update gave can be read, and has the key of its row. */
static int check_updates(struct check *check, const struct segment *segment,
                         const struct overlay *overlay)
{
    uint32_t row = overlay == NULL ? UINT32_MAX : overlay_next(overlay, 0);
    for (; row != UINT32_MAX; row = overlay_next(overlay, row + 1)) {
        struct overlay_version found;
        const uint8_t *own;
        uint32_t size, own_size;
        int code = overlay_find(overlay, row, UINT64_MAX, &found);
        if (code == OMENDB_OK)
            code = segment_document(segment, row, &own);
        if (code != OMENDB_OK)
            return code;
        const uint8_t *key = document_key(found.document, &size),
                      *own_key = document_key(own, &own_size);
        if (found.commit == 0 ||
            (size == own_size && (size == 0 || memcmp(key, own_key, size) == 0)))
            continue;
        char text[96];
        snprintf(text, sizeof text, "row %u was updated to another key", row);
        check_problem(check, text);
    }
    return OMENDB_OK;
}

static int check_segment(struct check *check, struct segment *segment,
                         const struct overlay *overlay)
{
    if (check_is_damaged(check, segment->file->entry.number, segment->part))
        return OMENDB_OK;
    check->segment = segment;
    int code = check_touch_part(segment->file->file, segment->part);
    if (code == OMENDB_OK)
        code = check_ids(check, segment);
    if (code == OMENDB_OK)
        code = check_documents(check, segment);
    if (code == OMENDB_OK)
        code = check_columns(check, segment);
    if (code == OMENDB_OK && !check_overlay_is_damaged(check, overlay))
        code = check_updates(check, segment, overlay);
    if (code == OMENDB_OK)
        check_model(check, segment);
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

static int check_gather_ids(const struct segment *segment, uint64_t commit, uint64_t *ids,
                            uint64_t capacity, uint64_t *count)
{
    int code = OMENDB_OK;
    for (uint32_t row = 0; row < segment->info.rows && *count < capacity && code == OMENDB_OK;
         row++) {
        if (segment_row_visible(segment, row, commit))
            code = segment_id(segment, row, &ids[(*count)++]);
    }
    return code;
}

/* Ids of all visible rows, but for those of damaged parts; a second row of the same id would be a
 * record with two vectors. */
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
        if (!check_is_damaged(check, segment->file->entry.number, segment->part))
            code = check_gather_ids(segment, commit, ids, capacity, &count);
    }
    if (code == OMENDB_OK && count > 1)
        sort_array(ids, (size_t)count, sizeof *ids, sort_compare_numbers);
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

/* The key of a visible row leads to its record, and to no other. */
static int check_key(struct check *check, const struct version *version, uint64_t commit,
                     const struct location *location)
{
    const uint8_t *document;
    struct location found;
    uint64_t id = 0, found_id = OMENDB_ID_AUTO;
    uint32_t size;
    int code = location_document(location, commit, &document);
    const uint8_t *key = code == OMENDB_OK ? document_key(document, &size) : NULL;
    if (key == NULL)
        return code;
    code = location_id(location, &id);
    if (code == OMENDB_OK)
        code = version_locate_key(version, key, size, commit, &found);
    if (code == OMENDB_OK && (found.memtable != NULL || found.segment != NULL))
        code = location_id(&found, &found_id);
    if (code == OMENDB_OK && id != found_id) {
        char text[96];
        snprintf(text, sizeof text, "the key of id %llu does not lead to it",
                 (unsigned long long)id);
        check_problem(check, text);
    }
    return code;
}

static int check_keys(struct check *check, const struct version *version, uint64_t commit)
{
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        struct memtable *memtable = version->memtables[i];
        uint32_t rows = memtable_visible_rows(memtable, commit);
        for (uint32_t row = 0; row < rows && code == OMENDB_OK; row++) {
            uint64_t end = tombstones_get(memtable->tombstones, row);
            if (end == 0 || end > commit)
                code = check_key(
                    check, version, commit,
                    &(struct location){memtable, NULL, version->memtable_overlays[i], row});
        }
    }
    for (uint32_t i = 0; i < version->segment_count; i++) {
        struct segment *segment = version->segments[i];
        if (check_is_damaged(check, segment->file->entry.number, segment->part))
            return OMENDB_OK; /* keys may be in it */
        for (uint32_t row = 0; row < segment->info.rows && code == OMENDB_OK; row++) {
            if (segment->key_hashes.length != 0 && segment_row_visible(segment, row, commit))
                code =
                    check_key(check, version, commit,
                              &(struct location){NULL, segment, version->segment_overlays[i], row});
        }
    }
    return code;
}

/* What was counted as used, at a commit at which all of it is visible; *known = 0: others commit
 * meanwhile. */
struct check_usage {
    uint64_t records, documents;
    int known;
};

/* The version and the commit to look at. */
static struct version *check_acquire(struct collection *collection, uint64_t *commit,
                                     struct check_usage *usage)
{
    omendb *db = collection->db;
    platform_mutex_lock(&db->commit_mutex);
    struct version *version = version_acquire_newest(collection, commit);
    *usage = (struct check_usage){collection->used_records, collection->used_documents,
                                  *commit == db->appended_commit};
    platform_mutex_unlock(&db->commit_mutex);
    return version;
}

static void check_count_row(const struct location *location, uint64_t commit,
                            struct check_usage *found)
{
    uint32_t bytes;
    found->known &= location_document_bytes(location, commit, &bytes) == OMENDB_OK;
    found->records++;
    found->documents += bytes;
}

static void check_usage(struct check *check, const struct version *version, uint64_t commit,
                        const struct check_usage *counted)
{
    struct check_usage found = {0, 0, 1};
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        struct memtable *memtable = version->memtables[i];
        uint32_t rows = memtable_visible_rows(memtable, commit);
        for (uint32_t row = 0; row < rows; row++) {
            uint64_t end = tombstones_get(memtable->tombstones, row);
            if (end == 0 || end > commit)
                check_count_row(
                    &(struct location){memtable, NULL, version->memtable_overlays[i], row}, commit,
                    &found);
        }
    }
    for (uint32_t i = 0; i < version->segment_count; i++) {
        struct segment *segment = version->segments[i];
        const struct overlay *overlay = version->segment_overlays[i];
        found.known &= !check_is_damaged(check, segment->file->entry.number, segment->part) &&
                       !check_overlay_is_damaged(check, overlay);
        for (uint32_t row = 0; row < segment->info.rows && found.known; row++) {
            if (segment_row_visible(segment, row, commit))
                check_count_row(
                    &(struct location){NULL, segment, version->segment_overlays[i], row}, commit,
                    &found);
        }
    }
    if (!found.known || !counted->known ||
        (found.records == counted->records && found.documents == counted->documents))
        return;
    char text[160];
    snprintf(text, sizeof text,
             "%llu records with %llu bytes of documents were counted, and %llu with %llu are there",
             (unsigned long long)counted->records, (unsigned long long)counted->documents,
             (unsigned long long)found.records, (unsigned long long)found.documents);
    check_problem(check, text);
}

static int check_collection(struct check *check, struct collection *collection)
{
    uint64_t commit;
    struct check_usage usage;
    struct version *version = check_acquire(collection, &commit, &usage);
    int code = OMENDB_OK;
    check->collection = collection;
    for (uint32_t i = 0; i < version->segment_count && code == OMENDB_OK; i++)
        code = check_segment(check, version->segments[i], version->segment_overlays[i]);
    for (uint32_t i = 0; i < version->memtable_count && code == OMENDB_OK; i++) {
        struct graph_view view;
        uint32_t indexed = atomic_load(&version->memtables[i]->indexed);
        graph_get_view(version->memtables[i]->graph, &view);
        code = indexed == 0 ? OMENDB_OK
                            : graph_check(&view, indexed, &check->db->memory, check_problem, check);
    }
    if (code == OMENDB_OK)
        code = check_error(check, check_unique(check, version, commit));
    if (code == OMENDB_OK)
        code = check_error(check, check_keys(check, version, commit));
    if (code == OMENDB_OK)
        check_usage(check, version, commit, &usage);
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
        code = rest_end(collection);
        if (code == OMENDB_OK)
            code = check_collection(check, collection);
        rest_release(collection);
    }
    return code;
}

OMENDB_INTERNAL int check_run(omendb *db, void (*report)(void *context, const char *line),
                              void *context, uint64_t *problems)
{
    struct check check = {.db = db, .report = report, .context = context};
    platform_mutex_lock(&db->maintenance_mutex);
    int code = manifest_pack(&db->memory, &db->published);
    if (code == OMENDB_OK)
        code = manifest_unpack(&db->memory, &db->published, &check.manifest);
    if (code == OMENDB_OK && !db->in_memory)
        code = check_manifest(&check);
    if (code == OMENDB_OK)
        code = check_files(&check);
    if (code == OMENDB_OK)
        code = check_log(&check);
    if (code == OMENDB_OK)
        code = check_collections(&check);
    platform_mutex_unlock(&db->maintenance_mutex);
    memory_free(&db->memory, check.damaged, check.damaged_capacity * sizeof *check.damaged);
    manifest_destroy(&db->memory, &check.manifest);
    if (problems != NULL)
        *problems = check.problems;
    return code;
}

#undef CHECK_OWNERS_BYTES
