/* salvage.c: everything that can still be read of a damaged database, into a new one.
 *
 * Ids and vectors are the truth; graphs, codes, curves and indexes of ids follow from them and are
 * made anew by the database that the records are put into. Nothing in the damaged directory is
 * written, and what is read there is believed where a checksum says so, and bounded all the same.
 *
 * In three steps. First the catalog: the manifest that CURRENT names, or the newest that is
 * readable, tells collections, files and the commit S up to which they hold everything; the logs
 * tell collections that were created and dropped since. Without the newest manifest segments and
 * overlays are found by their names, and their footers tell to which collections they belong. Then
 * rows of segments; last what the logs say after S, each record that is whole, in order. A later
 * row of an id replaces an earlier one: so parts whose deletions are known completely come after
 * those of which some are lost, as a row of theirs is certainly alive; among equals the newer file
 * comes later.
 *
 * Rejected: opening the database with checks turned off (recovery and search would each need a
 * second, forgiving way), and keeping the order of commits as a promise (a hole in the log would
 * end it). */
#include "salvage.h"
#include "format.h"
#include "lifecycle.h"
#include "records.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SALVAGE_BATCH_ROWS  1000
#define SALVAGE_BATCH_BYTES ((size_t)1 << 20)
#define SALVAGE_STALL_MS    3600000 /* a writer that waits for the graph has nothing else to do */

OMENDB_INTERNAL void salvage_tell(struct salvage *salvage, const char *format, ...)
{
    char line[768];
    va_list arguments;
    if (salvage->quiet)
        return;
    salvage->result->problems++;
    if (salvage->report == NULL)
        return;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    salvage->report(salvage->context, line);
}

OMENDB_INTERNAL int salvage_error(struct salvage *salvage, int code)
{
    if (code != OMENDB_OK && code != OMENDB_NOMEM)
        salvage_tell(salvage, "%s", error_text());
    return code == OMENDB_NOMEM ? code : OMENDB_OK;
}

OMENDB_INTERNAL int salvage_grow(struct salvage *salvage, void **array, size_t *capacity,
                                 size_t count, size_t element)
{
    if (count < *capacity)
        return OMENDB_OK;
    size_t larger = *capacity == 0 ? 64 : memory_multiply(*capacity, 2);
    void *moved = memory_resize(&salvage->memory, *array, memory_multiply(*capacity, element),
                                memory_multiply(larger, element));
    if (moved == NULL)
        return OMENDB_NOMEM;
    *array = moved;
    *capacity = larger;
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ into the new database */

/* A write that lacked memory is tried again, as one of a caller is. */
static int salvage_commit(struct salvage *salvage, struct collection *collection, uint32_t kind,
                          const struct records_given *given)
{
    struct work_wait wait = {0};
    int code;
    do {
        struct records records;
        code = records_prepare(collection, kind, given, &records);
        records.change.skip_missing = 1;
        if (code == OMENDB_OK)
            code = records_commit(&records, NULL);
        records_destroy(&records);
    } while (code == OMENDB_NOMEM && work_relieve(salvage->db, &wait));
    salvage->failed = code;
    return code;
}

static int salvage_commit_put(struct salvage *salvage, struct collection *target, size_t count,
                              const uint64_t *ids, const uint8_t *vectors,
                              const uint8_t *const *documents)
{
    const struct records_given given = {.count = count,
                                        .ids = ids,
                                        .vectors = vectors,
                                        .type = target->schema.scalar,
                                        .documents = documents};
    return salvage_commit(salvage, target, CHANGE_PUT, &given);
}

/* The record of the new database that has the key of `document` is put again without it. */
static int salvage_take_key(struct salvage *salvage, struct collection *target,
                            const uint8_t *document, uint64_t id)
{
    uint32_t size;
    uint64_t commit, holder = OMENDB_ID_AUTO;
    const uint8_t *key = document_key(document, &size), *vector = NULL, *old = NULL;
    uint8_t *without = NULL;
    size_t bytes = 0;
    struct location location = {NULL, NULL, NULL, 0};
    struct version *version = version_acquire_newest(target, &commit);
    int code = version_locate_key(version, key, size, commit, &location);
    if (code == OMENDB_OK)
        code = location.memtable == NULL && location.segment == NULL
                   ? OMENDB_CONFLICT
                   : location_id(&location, &holder);
    if (code == OMENDB_OK)
        code = location_vector(&location, &vector);
    if (code == OMENDB_OK)
        code = location_document(&location, commit, &old);
    if (code == OMENDB_OK)
        code = document_without_key(&salvage->memory, old, &without, &bytes);
    if (code == OMENDB_OK) {
        const uint8_t *documents[1] = {without};
        code = salvage_commit_put(salvage, target, 1, &holder, vector, documents);
    }
    if (code == OMENDB_OK)
        salvage_tell(salvage,
                     "collection \"%s\": ids %llu and %llu have the same key \"%.*s\"; the latter, "
                     "the newer one, keeps it",
                     target->name, (unsigned long long)holder, (unsigned long long)id, (int)size,
                     (const char *)key);
    memory_free(&salvage->memory, without, bytes);
    version_release(version);
    return code;
}

/* One by one, as some have keys that older records have, too: those were deleted, or had their keys
 * changed, and what told it is lost. */
static int salvage_flush_singly(struct salvage *salvage, uint32_t count)
{
    const struct salvage_batch *batch = &salvage->batch;
    struct collection *target = batch->collection->target;
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++) {
        const uint8_t *vector = batch->vectors + i * target->vector_bytes;
        const uint8_t *documents[1] = {batch->documents[i]};
        code = salvage_commit_put(salvage, target, 1, &batch->ids[i], vector, documents);
        if (code == OMENDB_CONFLICT && batch->documents[i] != NULL) {
            code = salvage_take_key(salvage, target, batch->documents[i], batch->ids[i]);
            if (code == OMENDB_OK)
                code = salvage_commit_put(salvage, target, 1, &batch->ids[i], vector, documents);
        }
        salvage->put += code == OMENDB_OK;
    }
    return code;
}

static void salvage_forget_documents(struct salvage *salvage, uint32_t count)
{
    struct salvage_batch *batch = &salvage->batch;
    for (uint32_t i = 0; i < count; i++) {
        memory_free(&salvage->memory, batch->documents[i], document_size(batch->documents[i]));
        batch->documents[i] = NULL;
    }
}

OMENDB_INTERNAL int salvage_flush(struct salvage *salvage)
{
    struct salvage_batch *batch = &salvage->batch;
    if (batch->count == 0)
        return OMENDB_OK;
    uint32_t count = batch->count;
    batch->count = 0;
    int code = salvage_commit_put(salvage, batch->collection->target, count, batch->ids,
                                  batch->vectors, (const uint8_t *const *)batch->documents);
    salvage->put += code == OMENDB_OK ? count : 0;
    if (code == OMENDB_CONFLICT)
        code = salvage_flush_singly(salvage, count);
    salvage_forget_documents(salvage, count);
    return code;
}

static int salvage_batch_begin(struct salvage *salvage, struct salvage_collection *collection)
{
    struct salvage_batch *batch = &salvage->batch;
    size_t bytes = collection->target->vector_bytes, fit = SALVAGE_BATCH_BYTES / bytes;
    int code = salvage_flush(salvage);
    batch->collection = collection;
    batch->capacity = (uint32_t)(fit < SALVAGE_BATCH_ROWS ? fit : SALVAGE_BATCH_ROWS);
    return code;
}

OMENDB_INTERNAL int salvage_put(struct salvage *salvage, struct salvage_collection *collection,
                                uint64_t id, const uint8_t *vector, const uint8_t *document)
{
    struct salvage_batch *batch = &salvage->batch;
    const struct collection *target = collection->target;
    const char *reason;
    size_t position;
    int code = OMENDB_OK;
    if (batch->collection != collection || batch->count == batch->capacity)
        code = salvage_batch_begin(salvage, collection);
    if (code != OMENDB_OK)
        return code;
    uint8_t *to = batch->vectors + batch->count * target->vector_bytes;
    if (id == OMENDB_ID_AUTO ||
        scalar_convert(&target->format, vector, (omendb_scalar)target->schema.scalar, to, &reason,
                       &position) != OMENDB_OK)
        return error_set(OMENDB_INVALID, "not a record");
    if (document != NULL) {
        uint8_t *copy = memory_alloc(&salvage->memory, document_size(document));
        if (copy == NULL)
            return OMENDB_NOMEM;
        memcpy(copy, document, document_size(document));
        batch->documents[batch->count] = copy;
    }
    batch->ids[batch->count++] = id;
    return OMENDB_OK;
}

static int salvage_create_named(struct salvage *salvage, struct salvage_collection *collection,
                                const char *name)
{
    struct collection *made;
    int code = collection_create(salvage->db, 0, name, &collection->schema, &made);
    if (code != OMENDB_OK)
        return code;
    struct change change = {.kind = CHANGE_CREATE, .collection = made};
    code = commit_changes(salvage->db, &change, 1, UINT64_MAX);
    if (code == OMENDB_OK)
        collection->target = made;
    else
        collection_release(made);
    return code;
}

/* Under its own name, unless that is lost or belongs to another one, too. */
static int salvage_create(struct salvage *salvage, struct salvage_collection *collection)
{
    char name[256];
    int code = OMENDB_EXISTS;
    if (collection->name[0] != 0)
        code = salvage_create_named(salvage, collection, collection->name);
    for (unsigned attempt = 0; attempt < 1000 && code == OMENDB_EXISTS; attempt++) {
        snprintf(name, sizeof name, attempt == 0 ? "collection-%llu" : "collection-%llu-%u",
                 (unsigned long long)collection->id, attempt);
        code = salvage_create_named(salvage, collection, name);
    }
    if (code != OMENDB_OK)
        return code;
    if (collection->name[0] == 0)
        salvage_tell(salvage,
                     "the name of collection number %llu is lost, with scale, ef, ef_construction "
                     "and seed: it is \"%s\" now",
                     (unsigned long long)collection->id, collection->target->name);
    else if (strcmp(collection->name, collection->target->name) != 0)
        salvage_tell(salvage, "two collections are called \"%s\": the newer one is \"%s\" now",
                     collection->name, collection->target->name);
    /* An automatic id is never given twice, also where the last records were deleted or lost. */
    if (collection->next_id > atomic_load(&collection->target->next_id))
        atomic_store(&collection->target->next_id, collection->next_id);
    salvage->result->collections++;
    return OMENDB_OK;
}

static int salvage_compare_collections(const void *left, const void *right)
{
    const struct salvage_collection *const *a = left, *const *b = right;
    return ((*a)->id > (*b)->id) - ((*a)->id < (*b)->id);
}

/* The older one of two that have one name keeps it. */
static int salvage_create_all(struct salvage *salvage)
{
    int code = OMENDB_OK;
    if (salvage->collection_count > 1)
        sort_array((void *)salvage->collections, salvage->collection_count,
                   sizeof *salvage->collections, salvage_compare_collections);
    for (size_t i = 0; i < salvage->collection_count && code == OMENDB_OK; i++) {
        struct salvage_collection *collection = salvage->collections[i];
        if (collection->dropped)
            continue;
        assert(collection->schema.dim != 0); /* of others we know that they are gone */
        code = salvage_create(salvage, collection);
    }
    if (code != OMENDB_OK)
        return code;
    salvage->batch.ids = memory_array(&salvage->memory, SALVAGE_BATCH_ROWS, sizeof(uint64_t));
    salvage->batch.vectors = memory_alloc(&salvage->memory, SALVAGE_BATCH_BYTES);
    salvage->vector = memory_alloc(&salvage->memory, SALVAGE_BATCH_BYTES);
    salvage->document = memory_alloc(&salvage->memory, DOCUMENT_BYTES_MAX);
    salvage->batch.documents =
        memory_zalloc(&salvage->memory, SALVAGE_BATCH_ROWS * sizeof(uint8_t *));
    return salvage->batch.ids == NULL || salvage->batch.vectors == NULL ||
                   salvage->batch.documents == NULL || salvage->vector == NULL ||
                   salvage->document == NULL
               ? OMENDB_NOMEM
               : OMENDB_OK;
}

OMENDB_INTERNAL int salvage_count(struct collection *collection, uint64_t *count)
{
    uint64_t commit;
    struct version *version = version_acquire_newest(collection, &commit);
    int code = version_count(version, commit, count);
    version_release(version);
    return code;
}

/* ------------------------------------------------------------------ collections */

/* Where the id is, or the empty place where it would go. */
static struct salvage_collection **salvage_slot(const struct salvage *salvage, uint64_t id)
{
    size_t mask = salvage->slot_count - 1, at = (size_t)idmap_mix(id) & mask;
    while (salvage->slots[at] != NULL && salvage->slots[at]->id != id)
        at = (at + 1) & mask;
    return &salvage->slots[at];
}

OMENDB_INTERNAL struct salvage_collection *salvage_find(const struct salvage *salvage, uint64_t id)
{
    return salvage->slot_count == 0 ? NULL : *salvage_slot(salvage, id);
}

/* Room for one collection more. */
static int salvage_reserve(struct salvage *salvage)
{
    void *items = salvage->collections;
    struct salvage_collection **old = salvage->slots;
    const size_t old_count = salvage->slot_count;
    int code = salvage_grow(salvage, &items, &salvage->collection_capacity,
                            salvage->collection_count, sizeof *salvage->collections);
    salvage->collections = items;
    if (code != OMENDB_OK || salvage->collection_count < old_count / 2)
        return code;
    const size_t count = old_count == 0 ? 128 : memory_multiply(old_count, 2);
    struct salvage_collection **slots =
        memory_zalloc(&salvage->memory, memory_multiply(count, sizeof *slots));
    if (slots == NULL)
        return OMENDB_NOMEM;
    salvage->slots = slots;
    salvage->slot_count = count;
    for (size_t i = 0; i < salvage->collection_count; i++)
        *salvage_slot(salvage, salvage->collections[i]->id) = salvage->collections[i];
    memory_free(&salvage->memory, old, old_count * sizeof *old);
    return OMENDB_OK;
}

/* The collection, new and empty where it was not known. */
static int salvage_add(struct salvage *salvage, uint64_t id, struct salvage_collection **collection)
{
    *collection = salvage_find(salvage, id);
    if (*collection != NULL)
        return OMENDB_OK;
    int code = salvage_reserve(salvage);
    if (code != OMENDB_OK)
        return code;
    *collection = memory_zalloc(&salvage->memory, sizeof **collection);
    if (*collection == NULL)
        return OMENDB_NOMEM;
    (*collection)->id = id;
    *salvage_slot(salvage, id) = *collection;
    salvage->collections[salvage->collection_count++] = *collection;
    return OMENDB_OK;
}

/* What was declared before is forgotten. */
static int salvage_note_declaration(struct salvage *salvage, struct salvage_collection *collection,
                                    const uint8_t *declaration, size_t size)
{
    memory_free(&salvage->memory, collection->declaration, collection->declaration_bytes);
    collection->declaration = NULL;
    collection->declaration_bytes = 0;
    if (size == 0)
        return OMENDB_OK;
    collection->declaration = memory_alloc(&salvage->memory, size);
    if (collection->declaration == NULL)
        return OMENDB_NOMEM;
    memcpy(collection->declaration, declaration, size);
    collection->declaration_bytes = size;
    return OMENDB_OK;
}

static void salvage_collections_destroy(struct salvage *salvage)
{
    struct memory *memory = &salvage->memory;
    for (size_t i = 0; i < salvage->collection_count; i++) {
        salvage_note_declaration(salvage, salvage->collections[i], NULL, 0);
        memory_free(memory, salvage->collections[i], sizeof **salvage->collections);
    }
    memory_free(memory, salvage->collections,
                salvage->collection_capacity * sizeof *salvage->collections);
    memory_free(memory, salvage->slots, salvage->slot_count * sizeof *salvage->slots);
}

static int salvage_collections_of_manifest(struct salvage *salvage)
{
    for (uint32_t i = 0; i < salvage->manifest.collection_count; i++) {
        const struct manifest_collection *entry = &salvage->manifest.collections[i];
        struct salvage_collection *collection;
        omendb_schema complete;
        if (schema_complete(&entry->schema, &complete) != OMENDB_OK) {
            salvage_tell(salvage, "MANIFEST-%llu: collection \"%s\" is lost: %s",
                         (unsigned long long)salvage->manifest.number, entry->name, error_text());
            continue;
        }
        int code = salvage_add(salvage, entry->id, &collection);
        if (code != OMENDB_OK)
            return code;
        collection->schema = complete;
        collection->next_id = entry->next_id;
        collection->limits = entry->limits;
        memcpy(collection->name, entry->name, sizeof collection->name);
        code = salvage_note_declaration(salvage, collection, entry->declaration,
                                        entry->declaration_bytes);
        if (code != OMENDB_OK)
            return code;
    }
    return OMENDB_OK;
}

/* Dropped before the manifest was written; its remains may lie about. */
static int salvage_was_dropped(const struct salvage *salvage, uint64_t id)
{
    return salvage->manifest.number != 0 && id < salvage->manifest.next_collection &&
           salvage_find(salvage, id) == NULL;
}

/* ------------------------------------------------------------------ what the directory holds */

static int salvage_note_name(void *context, const char *name)
{
    struct salvage *salvage = context;
    struct salvage_name entry;
    void *items = salvage->names;
    if (!storage_parse_name(name, &entry.kind, &entry.number))
        return OMENDB_OK;
    int code = salvage_grow(salvage, &items, &salvage->name_capacity, salvage->name_count,
                            sizeof *salvage->names);
    salvage->names = items;
    if (code == OMENDB_OK)
        salvage->names[salvage->name_count++] = entry;
    return code;
}

static int salvage_compare_names(const void *left, const void *right)
{
    const struct salvage_name *a = left, *b = right;
    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    return (a->number > b->number) - (a->number < b->number);
}

static int salvage_list(struct salvage *salvage, const char *path)
{
    const omendb_vfs *vfs = salvage->storage.vfs;
    int code = vfs->list(vfs->context, salvage->storage.directory, salvage_note_name, salvage);
    if (code == OMENDB_NOMEM)
        return code;
    if (code != OMENDB_OK)
        return error_set(code, "the directory \"%s\" cannot be listed", path);
    if (salvage->name_count == 0)
        return error_set(OMENDB_NOTFOUND, "no file of a database is left in \"%s\"", path);
    sort_array(salvage->names, salvage->name_count, sizeof *salvage->names, salvage_compare_names);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ manifest */

/* The manifest of a number; 0 is stored in its place where it cannot be read. What a later version
 * wrote is not damaged, and is left to that version. */
static int salvage_try_manifest(struct salvage *salvage, uint64_t number)
{
    int code = manifest_read_number(&salvage->storage, number, &salvage->manifest);
    salvage->manifest.number = code == OMENDB_OK ? number : 0;
    return code == OMENDB_OK || code == OMENDB_FORMAT ? code : salvage_error(salvage, code);
}

/* The one that CURRENT names, or the newest that is readable. Only from the newest of all it is
 * known which files hold what, as a later one may have replaced them. */
static int salvage_find_manifest(struct salvage *salvage)
{
    uint64_t current = 0, largest = 0;
    int known = manifest_current(&salvage->storage, &current) == OMENDB_OK;
    int code = known ? salvage_try_manifest(salvage, current) : OMENDB_OK;
    if (!known)
        salvage_tell(salvage, "%s", error_text());
    for (size_t i = salvage->name_count; i-- > 0 && code == OMENDB_OK;) {
        const struct salvage_name *name = &salvage->names[i];
        if (name->kind != STORAGE_MANIFEST)
            continue;
        largest = largest == 0 ? name->number : largest;
        if (salvage->manifest.number == 0 && !(known && name->number == current))
            code = salvage_try_manifest(salvage, name->number);
    }
    uint64_t found = salvage->manifest.number;
    salvage->by_name = found == 0 || found < current || (!known && found < largest);
    if (code == OMENDB_OK && salvage->by_name)
        salvage_tell(salvage,
                     found == 0 ? "no manifest is readable: collections are known from logs and "
                                  "segments only, and deleted or replaced records may be back"
                                : "MANIFEST-%llu is not the newest: segments are those that lie in "
                                  "the directory, and deleted or replaced records may be back",
                     (unsigned long long)found);
    return code;
}

/* ------------------------------------------------------------------ parts */

/* Counts a segment or log that gives nothing, with the size that the manifest or the disk tells. */
static void salvage_lose_file(struct salvage *salvage, enum storage_kind kind, uint64_t number)
{
    const struct manifest *manifest = &salvage->manifest;
    struct storage_file file = {0};
    char name[STORAGE_NAME_BYTES];
    uint64_t bytes = 0;
    if (salvage->quiet)
        return;
    storage_name(kind, number, name);
    if (storage_open(&salvage->storage, name, OMENDB_OPEN_READ, &file) == OMENDB_OK)
        storage_size(&salvage->storage, &file, &bytes);
    storage_close(&salvage->storage, &file);
    for (uint32_t i = 0; manifest->number != 0 && i < manifest->file_count; i++) {
        if (manifest->files[i].number == number)
            bytes = manifest->files[i].size;
    }
    salvage->result->lost_files++;
    salvage->result->lost_bytes += bytes;
}

static int salvage_refer(struct salvage *salvage, const struct salvage_reference *reference)
{
    void *items = salvage->references;
    int code = salvage_grow(salvage, &items, &salvage->reference_capacity, salvage->reference_count,
                            sizeof *salvage->references);
    salvage->references = items;
    if (code == OMENDB_OK)
        salvage->references[salvage->reference_count++] = *reference;
    return code;
}

static int salvage_compare_references(const void *left, const void *right)
{
    const struct salvage_reference *a = left, *b = right;
    if (a->file != b->file)
        return a->file < b->file ? -1 : 1;
    return (a->part > b->part) - (a->part < b->part);
}

static int salvage_references_of_manifest(struct salvage *salvage)
{
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < salvage->manifest.collection_count; i++) {
        const struct manifest_collection *entry = &salvage->manifest.collections[i];
        for (uint32_t j = 0; j < entry->segment_count && code == OMENDB_OK; j++) {
            const struct manifest_segment *segment = &entry->segments[j];
            struct salvage_reference reference = {.collection = entry->id,
                                                  .file = segment->file,
                                                  .part = segment->part,
                                                  .overlay_file = segment->overlay_file,
                                                  .overlay_part = segment->overlay_part};
            code = salvage_refer(salvage, &reference);
        }
    }
    if (code == OMENDB_OK)
        sort_array(salvage->references, salvage->reference_count, sizeof *salvage->references,
                   salvage_compare_references);
    for (size_t i = 0; i < salvage->reference_count && code == OMENDB_OK; i++)
        code = salvage_look_at_deletions(salvage, &salvage->references[i]);
    return code;
}

/* A collection of which only a part is known, unless it was dropped. */
static int salvage_collection_of_part(struct salvage *salvage, const struct part_info *info,
                                      int *wanted)
{
    struct salvage_collection *collection;
    omendb_schema schema = OMENDB_SCHEMA_INIT, complete;
    schema.dim = info->dim;
    schema.metric = info->metric;
    schema.scalar = info->scalar;
    schema.M = info->M;
    *wanted = !salvage_was_dropped(salvage, info->collection) &&
              schema_complete(&schema, &complete) == OMENDB_OK;
    if (!*wanted)
        return OMENDB_OK;
    int code = salvage_add(salvage, info->collection, &collection);
    if (code == OMENDB_OK && collection->schema.dim == 0 && !collection->dropped)
        collection->schema = complete;
    return code;
}

static int salvage_parts_of_file(struct salvage *salvage, const struct segment_file *file)
{
    int wanted, code = OMENDB_OK;
    for (uint32_t part = 0; part < file->part_count && code == OMENDB_OK; part++) {
        struct salvage_reference reference = {.collection = file->parts[part].collection,
                                              .file = file->number,
                                              .part = part,
                                              .doubtful = 1};
        code = salvage_collection_of_part(salvage, &file->parts[part], &wanted);
        if (code == OMENDB_OK && wanted)
            code = salvage_refer(salvage, &reference);
    }
    return code;
}

/* Overlays are gone through from the oldest to the newest, so that the last word is the newest. */
static void salvage_overlays_of_file(struct salvage *salvage, const struct segment_file *file)
{
    for (uint32_t part = 0; part < file->part_count; part++) {
        struct salvage_reference wanted = {.file = file->parts[part].target_file,
                                           .part = file->parts[part].target_part};
        size_t low = 0, high = salvage->reference_count;
        while (low < high) {
            size_t middle = low + (high - low) / 2;
            if (salvage_compare_references(&salvage->references[middle], &wanted) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        if (low == salvage->reference_count ||
            salvage_compare_references(&salvage->references[low], &wanted) != 0)
            continue;
        salvage->references[low].overlay_file = file->number;
        salvage->references[low].overlay_part = part;
    }
}

/* Names ascend, so references do, and segments come before overlays. */
static int salvage_references_by_name(struct salvage *salvage)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < salvage->name_count && code == OMENDB_OK; i++) {
        const struct salvage_name *name = &salvage->names[i];
        struct salvage_file file;
        if (name->kind != STORAGE_SEGMENT && name->kind != STORAGE_OVERLAY)
            continue;
        code = salvage_file_open(salvage, name->kind, name->number, &file);
        if (code == OMENDB_OK && name->kind == STORAGE_SEGMENT)
            code = salvage_parts_of_file(salvage, file.file);
        else if (code == OMENDB_OK)
            salvage_overlays_of_file(salvage, file.file);
        salvage_file_close(salvage, &file);
        const int lost = code != OMENDB_OK && name->kind == STORAGE_SEGMENT;
        code = salvage_error(salvage, code);
        if (code == OMENDB_OK && lost)
            salvage_lose_file(salvage, STORAGE_SEGMENT, name->number);
    }
    return code;
}

/* References [first, end) are of one file. */
static int salvage_segment_file(struct salvage *salvage, size_t first, size_t end, int doubtful)
{
    struct salvage_file file = {.file = NULL};
    int any = 0, code = OMENDB_OK;
    for (size_t i = first; i < end; i++)
        any |= salvage->references[i].doubtful == doubtful;
    if (!any)
        return OMENDB_OK;
    code = salvage_file_open(salvage, STORAGE_SEGMENT, salvage->references[first].file, &file);
    if (code != OMENDB_OK) {
        code = salvage_error(salvage, code);
        if (code == OMENDB_OK && !salvage->by_name)
            salvage_tell(salvage, "seg-%llu: all rows in it are lost",
                         (unsigned long long)salvage->references[first].file);
        /* Of a file with parts of both sorts this is met twice. */
        if (code == OMENDB_OK && salvage->references[first].doubtful == doubtful)
            salvage_lose_file(salvage, STORAGE_SEGMENT, salvage->references[first].file);
        return code;
    }
    for (size_t i = first; i < end && code == OMENDB_OK; i++) {
        if (salvage->references[i].doubtful == doubtful)
            code = salvage_part(salvage, &file, &salvage->references[i]);
    }
    salvage_file_close(salvage, &file);
    return code;
}

static int salvage_segments(struct salvage *salvage)
{
    int code = OMENDB_OK;
    for (int doubtful = 1; doubtful >= 0; doubtful--) {
        size_t first = 0;
        while (first < salvage->reference_count && code == OMENDB_OK) {
            size_t end = first;
            while (end < salvage->reference_count &&
                   salvage->references[end].file == salvage->references[first].file)
                end++;
            code = salvage_segment_file(salvage, first, end, doubtful);
            first = end;
        }
    }
    salvage_file_close(salvage, &salvage->overlay);
    return code;
}

/* ------------------------------------------------------------------ logs */

struct salvage_log {
    struct salvage *salvage;
    uint64_t number;
    int apply;   /* 0: only creations and drops are noted */
    int begun;   /* a record of it that is not in the segments was delivered */
    int read;    /* any record was */
    int damaged; /* something of it was told */
};

static void salvage_log_damage(void *context, const char *sentence)
{
    struct salvage_log *log = context;
    log->damaged = 1;
    salvage_tell(log->salvage, "%s", sentence);
}

static int salvage_log_create(struct salvage_log *log, const struct commit_logged *logged,
                              size_t *used)
{
    struct salvage_collection *collection;
    omendb_schema schema;
    char name[256];
    int code = commit_decode_schema(logged->body, logged->left, used, name, &schema);
    if (code != OMENDB_OK || log->apply)
        return code;
    if (salvage_was_dropped(log->salvage, logged->collection))
        return OMENDB_OK;
    code = salvage_add(log->salvage, logged->collection, &collection);
    if (code != OMENDB_OK || collection->name[0] != 0 || collection->dropped)
        return code;
    collection->schema = schema;
    if (manifest_name_is_legal(name))
        memcpy(collection->name, name, sizeof name);
    return OMENDB_OK;
}

static int salvage_log_drop(struct salvage_log *log, const struct commit_logged *logged)
{
    struct salvage_collection *collection;
    if (log->apply)
        return OMENDB_OK;
    int code = salvage_add(log->salvage, logged->collection, &collection);
    if (code == OMENDB_OK)
        collection->dropped = 1;
    return code;
}

static int salvage_log_setting(struct salvage_log *log, const struct commit_logged *logged,
                               size_t *used)
{
    struct salvage_collection *collection = salvage_find(log->salvage, logged->collection);
    *used = commit_setting_bytes(logged);
    if (*used == 0)
        return OMENDB_CORRUPT;
    if (collection == NULL || !log->apply)
        return OMENDB_OK;
    if (logged->kind == CHANGE_DECLARE)
        return salvage_note_declaration(log->salvage, collection, logged->body, logged->count);
    manifest_decode_limits(logged->body, &collection->limits);
    return OMENDB_OK;
}

static int salvage_apply_delete(struct salvage *salvage, const struct commit_logged *logged,
                                const struct salvage_collection *collection)
{
    uint64_t ids[SALVAGE_BATCH_ROWS];
    int code = salvage_flush(salvage);
    for (uint32_t at = 0; at < logged->count && code == OMENDB_OK; at += SALVAGE_BATCH_ROWS) {
        uint32_t left = logged->count - at;
        uint32_t run = left < SALVAGE_BATCH_ROWS ? left : SALVAGE_BATCH_ROWS;
        memcpy(ids, logged->body + (size_t)at * sizeof *ids, run * sizeof *ids);
        const struct records_given given = {.count = run, .ids = ids};
        code = salvage_commit(salvage, collection->target, CHANGE_DELETE, &given);
    }
    return code;
}

static int salvage_apply_put(struct salvage *salvage, uint64_t log,
                             const struct commit_logged *logged,
                             struct salvage_collection *collection)
{
    struct change change = {0};
    int code = OMENDB_OK,
        sound = commit_decode_body(logged, collection->target->vector_bytes, &change);
    const uint8_t *at = change.documents;
    if (!sound) {
        salvage_tell(salvage, "wal-%llu: keys and metadata of %u records of \"%s\" are damaged",
                     (unsigned long long)log, logged->count, collection->target->name);
        change.document_sizes = NULL;
    }
    for (uint32_t i = 0; i < logged->count && code == OMENDB_OK; i++) {
        uint64_t id;
        memcpy(&id, logged->body + i * sizeof id, sizeof id);
        code = salvage_put(salvage, collection, id,
                           change.vectors + i * collection->target->vector_bytes,
                           change_next_document(&change, i, &at));
        if (code == OMENDB_INVALID) {
            salvage->result->lost_rows++;
            salvage_tell(salvage, "wal-%llu: what is stored for id %llu is no record of \"%s\"",
                         (unsigned long long)log, (unsigned long long)id, collection->target->name);
            code = OMENDB_OK;
        }
    }
    return code;
}

/* The record as the new database has it, with another document, as a put of its vector. *is = 0: it
 * has none such. */
static int salvage_put_updated(struct salvage *salvage, struct salvage_collection *collection,
                               uint64_t id, const uint8_t *document, int *is)
{
    struct location location;
    const uint8_t *vector;
    uint64_t commit;
    int code = salvage_flush(salvage);
    struct version *version = version_acquire_newest(collection->target, &commit);
    if (code == OMENDB_OK)
        code = version_locate(version, id, commit, &location);
    *is = code == OMENDB_OK && (location.memtable != NULL || location.segment != NULL);
    if (*is)
        code = location_vector(&location, &vector);
    if (*is && code == OMENDB_OK)
        code = salvage_put(salvage, collection, id, vector, document);
    version_release(version);
    return code;
}

/* Of a record that is lost no fields can be saved. */
static int salvage_apply_update(struct salvage *salvage, uint64_t log,
                                const struct commit_logged *logged,
                                struct salvage_collection *collection)
{
    struct change change = {0};
    uint32_t lost = 0;
    int code = OMENDB_OK, is;
    if (!commit_decode_body(logged, collection->target->vector_bytes, &change)) {
        salvage_tell(salvage, "wal-%llu: updates of %u records of \"%s\" are damaged",
                     (unsigned long long)log, logged->count, collection->target->name);
        return OMENDB_OK;
    }
    const uint8_t *at = change.documents;
    for (uint32_t i = 0; i < change.count && code == OMENDB_OK; i++) {
        uint64_t id;
        memcpy(&id, logged->body + i * sizeof id, sizeof id);
        code = salvage_put_updated(salvage, collection, id, change_next_document(&change, i, &at),
                                   &is);
        lost += (uint32_t)(code == OMENDB_OK && !is);
    }
    if (lost != 0)
        salvage_tell(salvage, "wal-%llu: %u records of \"%s\" that were updated are lost",
                     (unsigned long long)log, lost, collection->target->name);
    return code;
}

OMENDB_INTERNAL int salvage_apply_records(struct salvage *salvage, uint64_t log,
                                          const struct commit_logged *logged,
                                          struct salvage_collection *collection)
{
    if (collection->dropped)
        return OMENDB_OK;
    if (logged->kind == CHANGE_DELETE)
        return salvage_apply_delete(salvage, logged, collection);
    return logged->kind == CHANGE_UPDATE ? salvage_apply_update(salvage, log, logged, collection)
                                         : salvage_apply_put(salvage, log, logged, collection);
}

OMENDB_INTERNAL int salvage_decode_records(const struct salvage *salvage, const uint8_t *payload,
                                           size_t size, struct commit_logged *logged,
                                           struct salvage_collection **collection, size_t *used)
{
    if (!commit_decode_head(payload, size, logged) || !commit_is_of_records(logged->kind))
        return OMENDB_CORRUPT;
    const size_t head = size - logged->left;
    *collection = salvage_find(salvage, logged->collection);
    if (*collection == NULL || ((*collection)->schema.dim == 0 && logged->kind != CHANGE_DELETE))
        return OMENDB_CORRUPT;
    const omendb_schema *schema = &(*collection)->schema;
    size_t body =
        commit_body_bytes(logged, scalar_bytes((omendb_scalar)schema->scalar, schema->dim));
    if (body > logged->left)
        return OMENDB_CORRUPT;
    *used = head + body;
    return OMENDB_OK;
}

/* One change; *used receives its bytes. OMENDB_CORRUPT: neither it nor what follows in its commit
 * can be read. */
static int salvage_log_change(struct salvage_log *log, const uint8_t *payload, size_t size,
                              size_t *used)
{
    struct salvage *salvage = log->salvage;
    struct salvage_collection *collection;
    struct commit_logged logged;
    struct prepared_logged prepared;
    size_t body = 0;
    int code;
    if (!commit_decode_head(payload, size, &logged))
        return OMENDB_CORRUPT;
    *used = size - logged.left;
    switch (logged.kind) {
    case CHANGE_CREATE:
        code = salvage_log_create(log, &logged, &body);
        *used += body;
        return code;
    case CHANGE_DROP:
        return salvage_log_drop(log, &logged);
    case CHANGE_LIMITS:
    case CHANGE_DECLARE:
        code = salvage_log_setting(log, &logged, &body);
        *used += body;
        return code;
    case CHANGE_PREPARE:
    case CHANGE_SETTLE:
    case CHANGE_REMEMBER:
        if (prepared_decode(payload, size, &prepared, used) != NULL)
            return OMENDB_CORRUPT;
        return log->apply ? salvage_note_prepared(salvage, log->number, &prepared) : OMENDB_OK;
    default:
        code = salvage_decode_records(salvage, payload, size, &logged, &collection, used);
        return code == OMENDB_OK && log->apply
                   ? salvage_apply_records(salvage, log->number, &logged, collection)
                   : code;
    }
}

static int salvage_log_record(void *context, const struct wal_record *record)
{
    struct salvage_log *log = context;
    struct salvage *salvage = log->salvage;
    size_t at = 0;
    int code = OMENDB_OK;
    log->read = 1;
    if (!salvage->by_name && record->sequence <= salvage->manifest.commit)
        return OMENDB_OK;
    if (!log->begun && salvage->sequence != 0 && record->sequence > salvage->sequence + 1)
        salvage_tell(salvage,
                     "wal-%llu: begins with commit %llu, but %llu was the last one before "
                     "it: those in between are lost",
                     (unsigned long long)log->number, (unsigned long long)record->sequence,
                     (unsigned long long)salvage->sequence);
    log->begun = 1;
    salvage->sequence = record->sequence;
    if (record->type != WAL_COMMIT) {
        salvage_tell(salvage,
                     "wal-%llu: offset %llu: commit %llu has type %u, which this library "
                     "does not know, and is lost",
                     (unsigned long long)log->number, (unsigned long long)record->offset,
                     (unsigned long long)record->sequence, record->type);
        return OMENDB_OK;
    }
    while (at < record->size && code == OMENDB_OK) {
        size_t used = 0;
        code = salvage_log_change(log, record->payload + at, record->size - at, &used);
        at += code == OMENDB_OK ? used : 0;
    }
    if (code != OMENDB_CORRUPT)
        return code;
    salvage_tell(salvage,
                 "wal-%llu: offset %llu: commit %llu cannot be read from byte %zu of its "
                 "payload on, or is of a collection of which nothing is known; that part "
                 "of it is lost",
                 (unsigned long long)log->number, (unsigned long long)record->offset,
                 (unsigned long long)record->sequence, at);
    return OMENDB_OK;
}

/* OMENDB_OK whatever happened to the log, or OMENDB_DONE where there never was one; else the code
 * of what was committed to the new database, or OMENDB_NOMEM. */
static int salvage_one_log(struct salvage *salvage, uint64_t number, int apply)
{
    struct salvage_log log = {.salvage = salvage, .number = number, .apply = apply};
    salvage->failed = OMENDB_OK;
    int code = wal_salvage(&salvage->storage, number, salvage_log_record, salvage_log_damage, &log);
    if (salvage->failed != OMENDB_OK || code == OMENDB_DONE)
        return salvage->failed != OMENDB_OK ? salvage->failed : code;
    log.damaged |= code != OMENDB_OK;
    code = salvage_error(salvage, code);
    if (code == OMENDB_OK && log.damaged && !log.read)
        salvage_lose_file(salvage, STORAGE_WAL, number);
    return code;
}

/* Logs ascend. Those before the manifest's are contained in the segments. */
static int salvage_logs(struct salvage *salvage, int apply)
{
    uint64_t first = salvage->by_name ? 0 : salvage->manifest.wal_number;
    int has_first = first == 0, code = OMENDB_OK;
    if (first == 0 && !salvage->by_name)
        return OMENDB_OK;
    salvage->quiet = !apply;
    salvage->sequence = salvage->by_name ? 0 : salvage->manifest.commit;
    for (size_t i = 0; i < salvage->name_count && code == OMENDB_OK; i++) {
        const struct salvage_name *name = &salvage->names[i];
        if (name->kind != STORAGE_WAL || name->number < first)
            continue;
        code = salvage_one_log(salvage, name->number, apply);
        has_first |= name->number == first && code != OMENDB_DONE;
        code = code == OMENDB_DONE ? OMENDB_OK : code;
    }
    if (code == OMENDB_OK && !has_first) {
        salvage_tell(salvage,
                     "wal-%llu is missing or empty: what was committed after commit %llu is lost",
                     (unsigned long long)first, (unsigned long long)salvage->manifest.commit);
        salvage_lose_file(salvage, STORAGE_WAL, first);
    }
    salvage->quiet = 0;
    return code == OMENDB_OK && apply ? salvage_flush(salvage) : code;
}

/* ------------------------------------------------------------------ the whole */

/* A shared lock keeps writers out, and others who salvage in; it needs no permission to write. */
static int salvage_lock(struct salvage *salvage)
{
    const omendb_vfs *vfs = salvage->storage.vfs;
    salvage->held_lock = (struct database_held){vfs, &salvage->lock, NULL};
    database_hold(&salvage->held_lock);
    int code = storage_open(&salvage->storage, "LOCK", OMENDB_OPEN_READ, &salvage->lock);
    if (code == OMENDB_NOTFOUND || code == OMENDB_PERMISSION)
        return OMENDB_OK; /* whoever opens a database for writing makes it, and must write it */
    if (code != OMENDB_OK)
        return code;
    if (vfs->lock(vfs->context, salvage->lock.handle, OMENDB_LOCK_SHARED) == OMENDB_BUSY)
        return error_set(OMENDB_BUSY,
                         "the database is open for writing elsewhere; close it there first");
    return OMENDB_OK;
}

static int salvage_open_source(struct salvage *salvage, const char *path,
                               const omendb_options *options)
{
    struct storage *storage = &salvage->storage;
    memory_init(&salvage->memory, options->allocator, 0);
    storage->memory = &salvage->memory;
    storage->vfs = options->vfs == NULL ? omendb_default_vfs() : options->vfs;
    storage->io = BLOCKS_IO_CHECK;
    int code = storage->vfs->open_directory(storage->vfs->context, path, 0, &storage->directory);
    if (code == OMENDB_OK)
        return salvage_lock(salvage);
    storage->directory = NULL;
    if (code == OMENDB_NOTFOUND)
        return error_set(code, "there is no database at \"%s\"", path);
    if (code == OMENDB_FORMAT)
        return error_set(code, "\"%s\" is not a directory; a database is one", path);
    return error_set(code, "the directory \"%s\" cannot be opened", path);
}

static int salvage_any_entry(void *context, const char *name)
{
    (void)name;
    *(int *)context = 1;
    return 1;
}

static int salvage_check_target(struct salvage *salvage, const char *new_path)
{
    const omendb_vfs *vfs = salvage->storage.vfs;
    void *directory = NULL;
    int used = 0, code = backup_check_target(&salvage->storage, new_path);
    if (code != OMENDB_OK ||
        vfs->open_directory(vfs->context, new_path, 0, &directory) != OMENDB_OK)
        return code; /* opening the new database tells what is wrong with it */
    code = vfs->list(vfs->context, directory, salvage_any_entry, &used);
    vfs->close_directory(vfs->context, directory);
    if (used)
        return error_set(OMENDB_EXISTS, "\"%s\" is not empty; give a new path", new_path);
    return code == OMENDB_OK ? code
                             : error_set(code, "the directory \"%s\" cannot be listed", new_path);
}

/* Commits need not be durable one by one; the checkpoint at the end is. */
static int salvage_open_target(struct salvage *salvage, const char *new_path,
                               const omendb_options *options)
{
    omendb_options chosen = *options;
    chosen.read_only = chosen.must_exist = 0;
    chosen.sync = options->sync == OMENDB_SYNC_OFF ? OMENDB_SYNC_OFF : OMENDB_SYNC_NORMAL;
    if (chosen.stall_timeout_ms < SALVAGE_STALL_MS)
        chosen.stall_timeout_ms = SALVAGE_STALL_MS;
    return database_open(new_path, &chosen, &salvage->db);
}

static int salvage_find_all(struct salvage *salvage, const char *path)
{
    int code = salvage_list(salvage, path);
    if (code == OMENDB_OK)
        code = salvage_find_manifest(salvage);
    if (code == OMENDB_OK)
        code = salvage_collections_of_manifest(salvage);
    if (code == OMENDB_OK)
        code = salvage_logs(salvage, 0);
    if (code == OMENDB_OK)
        code = salvage->by_name ? salvage_references_by_name(salvage)
                                : salvage_references_of_manifest(salvage);
    return code;
}

static int salvage_set_limits(struct salvage *salvage, const struct salvage_collection *collection)
{
    uint8_t bytes[FORMAT_LIMITS_BYTES];
    if (!manifest_has_limits(&collection->limits))
        return OMENDB_OK;
    manifest_encode_limits(&collection->limits, bytes);
    struct change change = {.kind = CHANGE_LIMITS,
                            .count = FORMAT_LIMITS_BYTES,
                            .collection = collection->target,
                            .setting = bytes};
    return commit_changes(salvage->db, &change, 1, UINT64_MAX);
}

static int salvage_declare(struct salvage *salvage, const struct salvage_collection *collection)
{
    struct declared *made = NULL;
    if (collection->declaration == NULL)
        return OMENDB_OK;
    int code =
        fields_make(salvage->db, collection->declaration, collection->declaration_bytes, &made);
    struct change change = {.kind = CHANGE_DECLARE,
                            .count = (uint32_t)collection->declaration_bytes,
                            .collection = collection->target,
                            .setting = collection->declaration,
                            .declared = &made};
    if (code == OMENDB_OK)
        code = commit_changes(salvage->db, &change, 1, UINT64_MAX);
    fields_discard(salvage->db, made);
    return code;
}

/* Last, so that they stand in no record's way. */
static int salvage_set_all(struct salvage *salvage)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < salvage->collection_count && code == OMENDB_OK; i++) {
        const struct salvage_collection *collection = salvage->collections[i];
        if (collection->target == NULL)
            continue;
        code = salvage_set_limits(salvage, collection);
        if (code == OMENDB_OK)
            code = salvage_declare(salvage, collection);
    }
    return code;
}

static int salvage_count_all(struct salvage *salvage)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < salvage->collection_count && code == OMENDB_OK; i++) {
        uint64_t count = 0;
        if (salvage->collections[i]->target != NULL)
            code = salvage_count(salvage->collections[i]->target, &count);
        salvage->result->records += count;
    }
    return code;
}

/* Also after a failure: the caller is told what is there. */
static int salvage_close_target(struct salvage *salvage, int code)
{
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof text, "%s", error_text());
    int counted = salvage_count_all(salvage);
    for (size_t i = 0; i < salvage->collection_count; i++) {
        if (salvage->collections[i]->target != NULL)
            collection_release(salvage->collections[i]->target);
    }
    int closed = salvage->db == NULL ? OMENDB_OK : database_close(salvage->db);
    if (code != OMENDB_OK)
        return error_adopt(code, text);
    return counted == OMENDB_OK ? closed : counted;
}

static void salvage_destroy(struct salvage *salvage)
{
    struct memory *memory = &salvage->memory;
    const omendb_vfs *vfs = salvage->storage.vfs;
    salvage_file_close(salvage, &salvage->overlay);
    salvage_prepared_destroy(salvage);
    manifest_destroy(memory, &salvage->manifest);
    memory_free(memory, salvage->names, salvage->name_capacity * sizeof *salvage->names);
    salvage_collections_destroy(salvage);
    memory_free(memory, salvage->references,
                salvage->reference_capacity * sizeof *salvage->references);
    memory_free(memory, salvage->batch.ids, SALVAGE_BATCH_ROWS * sizeof *salvage->batch.ids);
    memory_free(memory, salvage->batch.vectors, SALVAGE_BATCH_BYTES);
    memory_free(memory, salvage->vector, SALVAGE_BATCH_BYTES);
    memory_free(memory, salvage->document, DOCUMENT_BYTES_MAX);
    if (salvage->batch.documents != NULL)
        salvage_forget_documents(salvage, SALVAGE_BATCH_ROWS);
    memory_free(memory, salvage->batch.documents, SALVAGE_BATCH_ROWS * sizeof(uint8_t *));
    storage_close(&salvage->storage, &salvage->lock);
    database_let_go(&salvage->held_lock);
    if (salvage->storage.directory != NULL)
        vfs->close_directory(vfs->context, salvage->storage.directory);
}

OMENDB_INTERNAL int salvage_run(const char *path, const char *new_path,
                                const omendb_options *options,
                                void (*report)(void *context, const char *line), void *context,
                                omendb_salvage_result *result)
{
    struct salvage salvage = {.report = report, .context = context, .result = result};
    int code = salvage_open_source(&salvage, path, options);
    if (code == OMENDB_OK)
        code = salvage_check_target(&salvage, new_path);
    if (code == OMENDB_OK)
        code = salvage_find_all(&salvage, path);
    if (code == OMENDB_OK)
        code = salvage_open_target(&salvage, new_path, options);
    if (code == OMENDB_OK)
        code = salvage_create_all(&salvage);
    if (code == OMENDB_OK)
        code = salvage_segments(&salvage);
    if (code == OMENDB_OK)
        code = salvage_logs(&salvage, 1);
    if (code == OMENDB_OK)
        code = salvage_prepare_all(&salvage);
    if (code == OMENDB_OK)
        code = salvage_set_all(&salvage);
    if (code == OMENDB_OK)
        code = work_checkpoint(salvage.db, 1);
    code = salvage_close_target(&salvage, code);
    salvage_destroy(&salvage);
    return code;
}

#undef SALVAGE_BATCH_ROWS
#undef SALVAGE_BATCH_BYTES
#undef SALVAGE_STALL_MS
