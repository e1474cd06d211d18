/* version.c: the lives of collections, versions and segments; finding rows by id in them.
 *
 * Reference without a lock. A reader marks a pin slot as busy, loads the collection's version
 * pointer, adds a reference, and frees the slot; who replaces the pointer waits until each slot was
 * seen free once, and only then drops the old version's own reference. Both sides are sequentially
 * consistent: if the reader loaded the old pointer, its mark came before the swap in the one order,
 * so the swapper sees it. The pin lasts for a handful of instructions, so the wait is short and
 * needs no signal.
 *
 * Consistency. A commit number read while a version was current is complete in that version:
 * appends go to memtables in it, and what a later version dropped had ended at or before a commit
 * that was already visible (compact.c). Hence the loop in version_acquire_newest. */
#include "database.h"
#include "format.h"
#include "prefetch.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------ schema */

struct schema_range {
    const char *name;
    uint32_t value, low, high;
};

static int schema_check_ranges(const omendb_schema *schema)
{
    const struct schema_range ranges[] = {
        {"dim", schema->dim, 1, 65535},
        {"M", schema->M, 2, 256},
        {"ef_construction", schema->ef_construction, 8, 10000},
        {"ef", schema->ef, 1, 100000},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        if (ranges[i].value < ranges[i].low || ranges[i].value > ranges[i].high)
            return error_set(OMENDB_INVALID, "schema.%s is %u; it must be between %u and %u",
                             ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].high);
    }
    return OMENDB_OK;
}

static int schema_check_names(const omendb_schema *schema)
{
    if (schema->metric > OMENDB_HAMMING)
        return error_set(
            OMENDB_INVALID,
            "schema.metric is %u; there are l2 (0), cosine (1), ip (2) and hamming (3)",
            schema->metric);
    if (schema->scalar > OMENDB_B1)
        return error_set(
            OMENDB_INVALID,
            "schema.scalar is %u; there are f32 (0), f16 (1), bf16 (2), i8 (3), u8 (4) "
            "and b1 (5)",
            schema->scalar);
    return OMENDB_OK;
}

OMENDB_INTERNAL int schema_complete(const omendb_schema *given, omendb_schema *complete)
{
    omendb_schema_init(complete);
    complete->dim = given->dim;
    complete->metric = given->metric;
    complete->scalar = given->scalar;
    complete->scale = given->scale == 0.0f ? 1.0f : given->scale;
    complete->M = given->M == 0 ? 16 : given->M;
    complete->ef_construction = given->ef_construction == 0 ? 200 : given->ef_construction;
    complete->ef = given->ef == 0 ? 64 : given->ef;
    complete->seed = given->seed;
    int code = schema_check_ranges(complete);
    if (code == OMENDB_OK)
        code = schema_check_names(complete);
    if (code != OMENDB_OK)
        return code;
    if (kernels_for((omendb_scalar)complete->scalar, (omendb_metric)complete->metric) == NULL)
        return error_set(OMENDB_INVALID,
                         "metric %s does not go with scalar %s: hamming is for b1, and b1 only for "
                         "it",
                         omendb_metric_name((int)complete->metric),
                         omendb_scalar_name((int)complete->scalar));
    if (complete->scale != 1.0f && complete->scalar != OMENDB_I8 && complete->scalar != OMENDB_U8)
        return error_set(OMENDB_INVALID, "schema.scale is %g; only stored i8 and u8 have a scale",
                         (double)complete->scale);
    if (!(complete->scale > 0.0f) || complete->scale > 1e30f)
        return error_set(OMENDB_INVALID, "schema.scale is %g; it must be positive and at most 1e30",
                         (double)complete->scale);
    return OMENDB_OK;
}

static int schema_name_differs(const char *name, const char *field, const char *stored,
                               const char *given)
{
    return error_set(
        OMENDB_MISMATCH,
        "collection \"%s\" was made with %s %s, not %s; open it with the stored schema or NULL",
        name, field, stored, given);
}

static int schema_differs(const char *name, const char *field, double stored, double given)
{
    char numbers[2][32];
    snprintf(numbers[0], sizeof numbers[0], "%g", stored);
    snprintf(numbers[1], sizeof numbers[1], "%g", given);
    return schema_name_differs(name, field, numbers[0], numbers[1]);
}

OMENDB_INTERNAL int schema_compare(const omendb_schema *stored, const omendb_schema *given,
                                   const char *name)
{
    if (given->dim != 0 && given->dim != stored->dim)
        return schema_differs(name, "dim", stored->dim, given->dim);
    if (given->metric != stored->metric)
        return schema_name_differs(name, "metric", omendb_metric_name((int)stored->metric),
                                   omendb_metric_name((int)given->metric));
    if (given->scalar != stored->scalar)
        return schema_name_differs(name, "scalar", omendb_scalar_name((int)stored->scalar),
                                   omendb_scalar_name((int)given->scalar));
    if (given->scale != 0.0f && given->scale != stored->scale)
        return schema_differs(name, "scale", (double)stored->scale, (double)given->scale);
    if (given->M != 0 && given->M != stored->M)
        return schema_differs(name, "M", stored->M, given->M);
    if (given->ef_construction != 0 && given->ef_construction != stored->ef_construction)
        return schema_differs(name, "ef_construction", stored->ef_construction,
                              given->ef_construction);
    if (given->ef != 0 && given->ef != stored->ef)
        return schema_differs(name, "ef", stored->ef, given->ef);
    if (given->seed != 0 && given->seed != stored->seed)
        return schema_differs(name, "seed", (double)stored->seed, (double)given->seed);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ collections */

/* A curve and those that it replaced. */
static void calibration_destroy_all(struct memory *memory, struct calibration *calibration)
{
    while (calibration != NULL) {
        struct calibration *older = calibration->older;
        memory_free(memory, calibration, sizeof *calibration);
        calibration = older;
    }
}

static size_t collection_bytes(const char *name)
{
    return sizeof(struct collection) + strlen(name) + 1;
}

OMENDB_INTERNAL int collection_create(omendb *db, uint64_t id, const char *name,
                                      const omendb_schema *schema, struct collection **collection)
{
    *collection = NULL;
    struct collection *made = memory_zalloc(&db->memory, collection_bytes(name));
    if (made == NULL)
        return OMENDB_NOMEM;
    made->db = db;
    made->id = id;
    atomic_init(&made->references, 1);
    memcpy(made->name, name, strlen(name) + 1);
    made->schema = *schema;
    made->format = (struct scalar_format){
        (omendb_scalar)schema->scalar, (omendb_metric)schema->metric, schema->dim, schema->scale};
    made->kernel = kernels_for(made->format.scalar, made->format.metric);
    made->vector_bytes = scalar_bytes(made->format.scalar, schema->dim);
    made->distance_factor = scalar_distance_factor(&made->format);
    struct version *version = version_create(&db->memory, 0, 0);
    if (version == NULL) {
        memory_free(&db->memory, made, collection_bytes(name));
        return OMENDB_NOMEM;
    }
    atomic_init(&made->version, version);
    *collection = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL struct collection *collection_reference(struct collection *collection)
{
    atomic_fetch_add_explicit(&collection->references, 1, memory_order_relaxed);
    return collection;
}

OMENDB_INTERNAL void collection_release(struct collection *collection)
{
    if (collection == NULL ||
        atomic_fetch_sub_explicit(&collection->references, 1, memory_order_acq_rel) != 1)
        return;
    version_release(atomic_load_explicit(&collection->version, memory_order_relaxed));
    rest_discard(collection);
    calibration_destroy_all(&collection->db->memory, atomic_load(&collection->calibration));
    quota_destroy(collection);
    fields_destroy(collection);
    memory_free(&collection->db->memory, collection, collection_bytes(collection->name));
}

OMENDB_INTERNAL void collection_graph_config(const struct collection *collection,
                                             struct graph_config *config)
{
    config->M = collection->schema.M;
    config->ef_construction = collection->schema.ef_construction;
    config->seed = collection->schema.seed;
    config->dim = collection->schema.dim;
    config->vector_bytes = collection->vector_bytes;
    config->kernel = collection->kernel;
}

OMENDB_INTERNAL size_t catalog_find(const struct catalog *catalog, const char *name, int *found)
{
    size_t low = 0, high = catalog->count;
    *found = 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(catalog->items[middle]->name, name);
        if (order == 0) {
            *found = 1;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Where the id is, or would go. */
static size_t catalog_place(const struct catalog *catalog, uint64_t id)
{
    size_t low = 0, high = catalog->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (catalog->by_id[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

OMENDB_INTERNAL struct collection *catalog_by_id(const struct catalog *catalog, uint64_t id)
{
    size_t at = catalog_place(catalog, id);
    return at < catalog->count && catalog->by_id[at]->id == id ? catalog->by_id[at] : NULL;
}

OMENDB_INTERNAL int catalog_reserve(omendb *db, struct catalog *catalog, size_t more)
{
    if (catalog->count + more <= catalog->capacity)
        return OMENDB_OK;
    size_t capacity = catalog->capacity * 2 + more, used = catalog->count * sizeof(void *);
    struct collection **items = memory_array(&db->memory, capacity, 2 * sizeof *items);
    if (items == NULL)
        return OMENDB_NOMEM;
    if (used != 0) {
        memcpy(items, catalog->items, used);
        memcpy(items + capacity, catalog->by_id, used);
    }
    memory_free(&db->memory, catalog->items, catalog->capacity * 2 * sizeof *items);
    catalog->items = items;
    catalog->by_id = items + capacity;
    catalog->capacity = capacity;
    return OMENDB_OK;
}

static void catalog_insert_at(struct collection **list, size_t count, size_t at,
                              struct collection *collection)
{
    memmove(list + at + 1, list + at, (count - at) * sizeof *list);
    list[at] = collection;
}

static void catalog_remove_at(struct collection **list, size_t count, size_t at)
{
    memmove(list + at, list + at + 1, (count - at - 1) * sizeof *list);
}

OMENDB_INTERNAL void catalog_insert(struct catalog *catalog, struct collection *collection)
{
    int found;
    catalog_insert_at(catalog->items, catalog->count,
                      catalog_find(catalog, collection->name, &found), collection);
    catalog_insert_at(catalog->by_id, catalog->count, catalog_place(catalog, collection->id),
                      collection);
    catalog->count++;
}

/* A reader that goes back to a manifest may know some of one name, until the log has told it again
 * that the older ones were dropped. The first of them, or where it would go. */
static size_t catalog_first(const struct catalog *catalog, const char *name)
{
    int found;
    size_t at = catalog_find(catalog, name, &found);
    while (at > 0 && strcmp(catalog->items[at - 1]->name, name) == 0)
        at--;
    return at;
}

OMENDB_INTERNAL int catalog_has_older(const struct catalog *catalog, const char *name,
                                      uint64_t below)
{
    for (size_t at = catalog_first(catalog, name);
         at < catalog->count && strcmp(catalog->items[at]->name, name) == 0; at++) {
        if (catalog->items[at]->id < below)
            return 1;
    }
    return 0;
}

OMENDB_INTERNAL void catalog_remove(struct catalog *catalog, struct collection *collection)
{
    size_t at = catalog_first(catalog, collection->name);
    while (at + 1 < catalog->count && catalog->items[at] != collection)
        at++;
    catalog_remove_at(catalog->items, catalog->count, at);
    catalog_remove_at(catalog->by_id, catalog->count, catalog_place(catalog, collection->id));
    catalog->count--;
}

OMENDB_INTERNAL void catalog_destroy(omendb *db, struct catalog *catalog)
{
    for (size_t i = 0; i < catalog->count; i++)
        collection_release(catalog->items[i]);
    memory_free(&db->memory, catalog->items, catalog->capacity * 2 * sizeof *catalog->items);
    memset(catalog, 0, sizeof *catalog);
}

/* ------------------------------------------------------------------ versions */

static size_t version_bytes(uint32_t memtables, uint32_t segments)
{
    return sizeof(struct version) +
           memtables * (sizeof(struct memtable *) + sizeof(struct overlay *)) +
           segments * (sizeof(struct segment *) + sizeof(struct overlay *));
}

OMENDB_INTERNAL struct version *version_create(struct memory *memory, uint32_t memtables,
                                               uint32_t segments)
{
    size_t bytes = version_bytes(memtables, segments);
    struct version *version = memory_zalloc(memory, bytes);
    if (version == NULL)
        return NULL;
    version->bytes = bytes;
    atomic_init(&version->references, 1);
    version->memory = memory;
    version->memtable_count = memtables;
    version->segment_count = segments;
    version->memtables = (struct memtable **)(version + 1);
    version->segments = (struct segment **)(version->memtables + memtables);
    version->memtable_overlays = (struct overlay **)(version->segments + segments);
    version->segment_overlays = version->memtable_overlays + memtables;
    return version;
}

OMENDB_INTERNAL void version_put_memtable(struct version *version, uint32_t at,
                                          struct memtable *memtable, struct overlay *overlay)
{
    version->memtables[at] = memtable_reference(memtable);
    version->memtable_overlays[at] = overlay_reference(overlay);
}

OMENDB_INTERNAL void version_put_segment(struct version *version, uint32_t at,
                                         struct segment *segment, struct overlay *overlay)
{
    version->segments[at] = segment_reference(segment);
    version->segment_overlays[at] = overlay_reference(overlay);
}

OMENDB_INTERNAL void version_put_all(struct version *version, const struct version *from)
{
    for (uint32_t i = 0; i < from->memtable_count; i++)
        version_put_memtable(version, i, from->memtables[i], from->memtable_overlays[i]);
    for (uint32_t i = 0; i < from->segment_count; i++)
        version_put_segment(version, i, from->segments[i], from->segment_overlays[i]);
}

OMENDB_INTERNAL void version_release(struct version *version)
{
    if (version == NULL ||
        atomic_fetch_sub_explicit(&version->references, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        memtable_release(version->memtables[i]);
        overlay_release(version->memtable_overlays[i]);
    }
    for (uint32_t i = 0; i < version->segment_count; i++) {
        segment_release(version->segments[i]);
        overlay_release(version->segment_overlays[i]);
    }
    memory_free(version->memory, version, version->bytes);
}

static struct pin_slot *version_pin(omendb *db)
{
    /* Stacks of threads differ in their pages: a cheap way to begin at different slots. */
    uint32_t at = (uint32_t)(idmap_mix((uintptr_t)&db >> 12) % DATABASE_PIN_SLOTS);
    while (atomic_exchange(&db->pins[at].busy, 1) != 0)
        at = (at + 1) % DATABASE_PIN_SLOTS;
    return &db->pins[at];
}

OMENDB_INTERNAL struct version *version_acquire(struct collection *collection)
{
    struct pin_slot *pin = version_pin(collection->db);
    OMENDB_YIELD("version_acquire");
    struct version *version = atomic_load(&collection->version);
    OMENDB_YIELD("version_acquire, loaded");
    atomic_fetch_add_explicit(&version->references, 1, memory_order_relaxed);
    atomic_store(&pin->busy, 0);
    return version;
}

OMENDB_INTERNAL void version_wait_for_readers(omendb *db)
{
    for (size_t i = 0; i < DATABASE_PIN_SLOTS; i++) {
        for (uint32_t spins = 0; atomic_load(&db->pins[i].busy) != 0; spins++) {
            if (spins < 64)
                platform_pause();
            else
                platform_yield();
        }
    }
}

OMENDB_INTERNAL void version_install(struct collection *collection, struct version *version)
{
    OMENDB_YIELD("version_install");
    struct version *old = atomic_exchange(&collection->version, version);
    OMENDB_YIELD("version_install, swapped");
    version_wait_for_readers(collection->db);
    version_release(old);
}

OMENDB_INTERNAL struct version *version_acquire_newest(struct collection *collection,
                                                       uint64_t *commit)
{
    for (;;) {
        struct version *version = version_acquire(collection);
        OMENDB_YIELD("version_acquire_newest, acquired");
        *commit = atomic_load(&collection->db->visible_commit);
        OMENDB_YIELD("version_acquire_newest, numbered");
        if (atomic_load(&collection->version) == version)
            return version;
        version_release(version);
    }
}

/* ------------------------------------------------------------------ segments */

OMENDB_INTERNAL int shared_file_open(omendb *db, const struct manifest_file *entry,
                                     struct shared_file **file)
{
    *file = NULL;
    struct shared_file *made = memory_zalloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    atomic_init(&made->references, 1);
    made->db = db;
    made->entry = *entry;
    int code = segment_file_open(&db->storage, (enum storage_kind)entry->kind, entry->number,
                                 entry->size, entry->footer_crc, &made->file);
    if (code != OMENDB_OK) {
        memory_free(&db->memory, made, sizeof *made);
        return code;
    }
    platform_mutex_lock(&db->txn_mutex);
    made->next = db->open_files;
    if (made->next != NULL)
        made->next->previous = made;
    db->open_files = made;
    platform_mutex_unlock(&db->txn_mutex);
    *file = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL struct shared_file *shared_file_reference(struct shared_file *file)
{
    atomic_fetch_add_explicit(&file->references, 1, memory_order_relaxed);
    return file;
}

OMENDB_INTERNAL void shared_file_release(struct shared_file *file)
{
    if (file == NULL || atomic_fetch_sub_explicit(&file->references, 1, memory_order_acq_rel) != 1)
        return;
    omendb *db = file->db;
    segment_file_close(file->file);
    platform_mutex_lock(&db->txn_mutex);
    if (file->previous != NULL)
        file->previous->next = file->next;
    else
        db->open_files = file->next;
    if (file->next != NULL)
        file->next->previous = file->previous;
    platform_mutex_unlock(&db->txn_mutex);
    memory_free(&db->memory, file, sizeof *file);
}

OMENDB_INTERNAL int shared_file_is_open(omendb *db, uint64_t number)
{
    platform_mutex_lock(&db->txn_mutex);
    const struct shared_file *file = db->open_files;
    while (file != NULL && file->entry.number != number)
        file = file->next;
    platform_mutex_unlock(&db->txn_mutex);
    return file != NULL;
}

static int segment_expect(const struct segment_file *file, uint32_t part, enum section_type type,
                          uint64_t expected)
{
    struct section_range range = segment_section(file, part, type);
    if (range.length == expected)
        return OMENDB_OK;
    return error_set(OMENDB_CORRUPT,
                     "seg-%llu: part %u: section %d has %llu bytes, expected %llu; " ERROR_RESTORE,
                     (unsigned long long)file->number, part, (int)type,
                     (unsigned long long)range.length, (unsigned long long)expected);
}

/* A step that is no number that codes_choose gives is not one to compute with. */
static int segment_has_codes(const struct part_info *info)
{
    return info->code_step > 0.0f && info->code_step <= FLT_MAX;
}

/* The sections of documents are there together or not at all, as are those of keys, which fit each
 * other. */
static int segment_check_documents(const struct segment_file *file, uint32_t part)
{
    uint64_t rows = file->parts[part].rows,
             ends = segment_section(file, part, SECTION_DOCUMENT_ENDS).length,
             hashes = segment_section(file, part, SECTION_KEY_HASHES).length,
             keys = hashes < HASH_SEED_BYTES ? 0 : (hashes - HASH_SEED_BYTES) / sizeof(uint64_t);
    int code = OMENDB_OK;
    if (ends != 0)
        code = segment_expect(file, part, SECTION_DOCUMENT_ENDS, rows * sizeof(uint64_t));
    else if (hashes != 0)
        code = segment_expect(file, part, SECTION_KEY_HASHES, 0);
    else
        code = segment_expect(file, part, SECTION_DOCUMENTS, 0);
    if (code == OMENDB_OK &&
        (keys > rows || hashes % sizeof(uint64_t) != 0 || (hashes != 0 && keys == 0)))
        code = segment_expect(file, part, SECTION_KEY_HASHES,
                              HASH_SEED_BYTES + rows * sizeof(uint64_t));
    if (code == OMENDB_OK)
        code = segment_expect(file, part, SECTION_KEY_ROWS, keys * sizeof(uint32_t));
    if (code == OMENDB_OK)
        code = segment_expect(file, part, SECTION_KEY_FILTER,
                              keys == 0 ? 0 : idmap_filter_bytes((uint32_t)keys));
    return code;
}

static int segment_check_layout(const struct collection *collection,
                                const struct segment_file *file, uint32_t part)
{
    const struct part_info *info = &file->parts[part];
    uint64_t rows = info->rows, indexed = info->indexed_rows;
    if (info->collection != collection->id || info->dim != collection->schema.dim ||
        info->M != collection->schema.M || info->scalar != collection->schema.scalar ||
        info->metric != collection->schema.metric ||
        info->vector_stride != collection->vector_bytes || indexed > rows || rows > GRAPH_MAX_ROWS)
        return error_set(OMENDB_CORRUPT,
                         "seg-%llu: part %u does not fit collection \"%s\"; " ERROR_RESTORE,
                         (unsigned long long)file->number, part, collection->name);
    const struct {
        enum section_type type;
        uint64_t bytes;
    } expected[] = {
        {SECTION_VECTORS, rows * info->vector_stride},
        {SECTION_LINKS, indexed * 2 * info->M * sizeof(uint32_t)},
        {SECTION_LEVELS, indexed},
        {SECTION_UPPER_INDEX, indexed * sizeof(uint32_t)},
        {SECTION_UPPER_LINKS, (uint64_t)info->upper_count * info->M * sizeof(uint32_t)},
        {SECTION_IDS, rows * sizeof(uint64_t)},
        {SECTION_SORTED_IDS, (info->flags & SEGMENT_IDS_ASCEND) != 0 ? 0 : rows * sizeof(uint64_t)},
        {SECTION_SORTED_ROWS,
         (info->flags & SEGMENT_IDS_ASCEND) != 0 ? 0 : rows * sizeof(uint32_t)},
        {SECTION_ID_FILTER, idmap_filter_bytes(info->rows)},
        {SECTION_CODES, segment_has_codes(info) ? rows * codes_stride(info->dim) : 0},
    };
    int code = OMENDB_OK;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0] && code == OMENDB_OK; i++)
        code = segment_expect(file, part, expected[i].type, expected[i].bytes);
    if (code == OMENDB_OK)
        code = segment_check_documents(file, part);
    uint64_t curve = segment_section(file, part, SECTION_CALIBRATION).length;
    if (code == OMENDB_OK && curve != 0 && !calibration_length_is_legal(curve))
        code = segment_expect(file, part, SECTION_CALIBRATION,
                              FORMAT_CALIBRATION_BYTES + FORMAT_CURVE_BYTES);
    struct section_range range = segment_section(file, part, SECTION_ID_MODEL);
    struct idmodel model;
    if (code == OMENDB_OK && range.length != 0 &&
        !idmodel_open(&model, file->blocks.base + range.offset, range.length, info->rows))
        code = error_set(
            OMENDB_CORRUPT, "seg-%llu: part %u: %llu bytes are no model of %u ids; " ERROR_RESTORE,
            (unsigned long long)file->number, part, (unsigned long long)range.length, info->rows);
    return code;
}

static struct rows_view segment_rows(struct segment *segment, size_t index, enum section_type type,
                                     size_t stride, uint64_t *offset)
{
    struct segment_file *file = segment->file->file;
    struct section_range range = segment_section(file, segment->part, type);
    /* The views are shared with growing stores, hence not const; nothing writes through a sealed
     * one. */
    segment->chunks[index] = (uint8_t *)(uintptr_t)(file->blocks.base + range.offset);
    *offset = range.offset;
    return (struct rows_view){&segment->chunks[index], 31, UINT32_MAX >> 1, stride};
}

/* The walk's view: codes in place of vectors, where there are some. */
static void segment_set_code_view(struct segment *segment, const struct collection *collection)
{
    const struct part_info *info = &segment->info;
    struct graph_view *view = &segment->graph;
    *view = segment->full;
    view->count = info->indexed_rows;
    segment->codes = (struct code_format){collection->format, 0.0f, 0.0f};
    if (!segment_has_codes(info))
        return;
    segment->codes.low = info->code_low;
    segment->codes.step = info->code_step;
    view->vectors =
        segment_rows(segment, 5, SECTION_CODES, codes_stride(info->dim), &view->vectors_offset);
    view->kernel = codes_kernel(&segment->codes);
}

static void segment_set_views(struct segment *segment, const struct collection *collection)
{
    struct graph_view *view = &segment->full;
    const struct part_info *info = &segment->info;
    view->vectors =
        segment_rows(segment, 0, SECTION_VECTORS, info->vector_stride, &view->vectors_offset);
    view->links = segment_rows(segment, 1, SECTION_LINKS, (size_t)info->M * 2 * sizeof(uint32_t),
                               &view->links_offset);
    view->levels = segment_rows(segment, 2, SECTION_LEVELS, 1, &view->levels_offset);
    view->upper_index =
        segment_rows(segment, 3, SECTION_UPPER_INDEX, sizeof(uint32_t), &view->upper_index_offset);
    view->upper_links = segment_rows(segment, 4, SECTION_UPPER_LINKS, info->M * sizeof(uint32_t),
                                     &view->upper_links_offset);
    view->count = info->rows;
    view->upper_count = info->upper_count;
    view->M = info->M;
    view->links_per_row = info->M * 2;
    view->entry_row = info->indexed_rows == 0 || info->entry_row >= info->indexed_rows
                          ? GRAPH_NO_ROW
                          : info->entry_row;
    view->entry_level = info->entry_level > GRAPH_MAX_LEVEL ? 0 : info->entry_level;
    view->dim = info->dim;
    view->kernel = collection->kernel;
    view->file = &segment->file->file->blocks;
    segment_set_code_view(segment, collection);
}

/* The segment's curve, where it has one. It decides about effort only, so one that is damaged, or
 * for which there is no memory, does not keep the segment from being used; omendb_check tells. */
static void segment_read_calibration(struct segment *segment)
{
    struct segment_file *file = segment->file->file;
    struct section_range range = segment_section(file, segment->part, SECTION_CALIBRATION);
    if (range.length == 0 || blocks_touch(&file->blocks, range.offset, range.length) != OMENDB_OK)
        return;
    struct calibration *curve = memory_alloc(segment->memory, sizeof *curve);
    if (curve != NULL && calibration_decode(curve, file->blocks.base + range.offset, range.length))
        segment->calibration = curve;
    else if (curve != NULL)
        memory_free(segment->memory, curve, sizeof *curve);
}

/* Where the ascending ids and their model lie; neither is read. */
static void segment_set_index(struct segment *segment)
{
    const struct segment_file *file = segment->file->file;
    int ascend = (segment->info.flags & SEGMENT_IDS_ASCEND) != 0;
    segment->ascending = ascend ? segment->ids : segment->sorted_ids;
    segment->model_range = segment_section(file, segment->part, SECTION_ID_MODEL);
    if (segment->model_range.length == 0 ||
        !idmodel_open(&segment->model, file->blocks.base + segment->model_range.offset,
                      segment->model_range.length, segment->info.rows))
        atomic_init(&segment->model_state, SEGMENT_MODEL_NONE);
}

/* The seed of the hashes lies before them; neither is read. */
static void segment_set_keys(struct segment *segment)
{
    const struct segment_file *file = segment->file->file;
    segment->key_hashes = segment_section(file, segment->part, SECTION_KEY_HASHES);
    segment->key_rows = segment_section(file, segment->part, SECTION_KEY_ROWS);
    segment->key_filter = segment_section(file, segment->part, SECTION_KEY_FILTER);
    if (segment->key_hashes.length == 0)
        return;
    segment->key_seed = (struct section_range){segment->key_hashes.offset, HASH_SEED_BYTES};
    segment->key_hashes.offset += HASH_SEED_BYTES;
    segment->key_hashes.length -= HASH_SEED_BYTES;
}

OMENDB_INTERNAL int segment_open(omendb *db, const struct collection *collection,
                                 struct shared_file *file, uint32_t part,
                                 struct tombstones *tombstones, struct begin_array *begins,
                                 struct segment **segment)
{
    *segment = NULL;
    if (part >= file->file->part_count)
        return error_set(OMENDB_CORRUPT,
                         "seg-%llu has %u parts; the manifest names part %u; " ERROR_RESTORE,
                         (unsigned long long)file->file->number, file->file->part_count, part);
    int code = segment_check_layout(collection, file->file, part);
    if (code != OMENDB_OK)
        return code;
    struct segment *made = memory_zalloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    struct tombstones *own = tombstones != NULL ? tombstones : tombstones_create(&db->memory);
    if (own == NULL) {
        memory_free(&db->memory, made, sizeof *made);
        return OMENDB_NOMEM;
    }
    atomic_init(&made->references, 1);
    made->memory = &db->memory;
    made->file = shared_file_reference(file);
    made->part = part;
    made->info = file->file->parts[part];
    made->tombstones = own;
    made->begins = begins;
    made->ids = segment_section(file->file, part, SECTION_IDS);
    made->sorted_ids = segment_section(file->file, part, SECTION_SORTED_IDS);
    made->sorted_rows = segment_section(file->file, part, SECTION_SORTED_ROWS);
    made->filter = segment_section(file->file, part, SECTION_ID_FILTER);
    made->document_ends = segment_section(file->file, part, SECTION_DOCUMENT_ENDS);
    made->documents = segment_section(file->file, part, SECTION_DOCUMENTS);
    made->columns = segment_section(file->file, part, SECTION_COLUMNS);
    segment_set_keys(made);
    segment_set_index(made);
    segment_set_views(made, collection);
    segment_read_calibration(made);
    *segment = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL struct segment *segment_reference(struct segment *segment)
{
    atomic_fetch_add_explicit(&segment->references, 1, memory_order_relaxed);
    return segment;
}

OMENDB_INTERNAL struct begin_array *begin_array_create(struct memory *memory, uint32_t rows)
{
    struct begin_array *begins = memory_zalloc(memory, sizeof *begins + rows * sizeof(uint64_t));
    if (begins == NULL)
        return NULL;
    atomic_init(&begins->references, 1);
    begins->memory = memory;
    begins->rows = rows;
    return begins;
}

OMENDB_INTERNAL void begin_array_release(struct begin_array *begins)
{
    if (begins == NULL ||
        atomic_fetch_sub_explicit(&begins->references, 1, memory_order_acq_rel) != 1)
        return;
    memory_free(begins->memory, begins, sizeof *begins + begins->rows * sizeof(uint64_t));
}

OMENDB_INTERNAL struct segment *segment_reopen(omendb *db, const struct collection *collection,
                                               const struct segment *segment)
{
    struct segment *made;
    struct tombstones *tombstones = tombstones_reference(segment->tombstones);
    if (segment->begins != NULL)
        atomic_fetch_add_explicit(&segment->begins->references, 1, memory_order_relaxed);
    int code = segment_open(db, collection, segment->file, segment->part, tombstones,
                            segment->begins, &made);
    if (code != OMENDB_OK) {
        tombstones_release(tombstones);
        begin_array_release(segment->begins);
        return NULL;
    }
    if (segment->calibration != NULL && made->calibration == NULL) {
        segment_release(made);
        return NULL;
    }
    made->codes_starved = segment->codes_starved;
    made->curve_tried = segment->curve_tried;
    atomic_store(&made->not_stale_limit, atomic_load(&segment->not_stale_limit));
    made->overlay_file = segment->overlay_file;
    made->overlay_part = segment->overlay_part;
    made->overlay_commit = segment->overlay_commit;
    made->documents_commit = segment->documents_commit;
    return made;
}

OMENDB_INTERNAL int segment_is_same(const struct segment *a, const struct segment *b)
{
    return a->file == b->file && a->part == b->part;
}

OMENDB_INTERNAL void segment_release(struct segment *segment)
{
    if (segment == NULL ||
        atomic_fetch_sub_explicit(&segment->references, 1, memory_order_acq_rel) != 1)
        return;
    tombstones_release(segment->tombstones);
    begin_array_release(segment->begins);
    hot_destroy(segment->memory, atomic_load_explicit(&segment->hot, memory_order_relaxed));
    memory_free(segment->memory, segment->calibration, sizeof *segment->calibration);
    shared_file_release(segment->file);
    memory_free(segment->memory, segment, sizeof *segment);
}

/* Verifies and copies a number out of a section. */
static int segment_number(const struct segment *segment, struct section_range range, uint64_t index,
                          size_t bytes, void *out)
{
    struct block_file *file = &segment->file->file->blocks;
    uint64_t offset = range.offset + index * bytes;
    int code = blocks_touch(file, offset, bytes);
    if (code == OMENDB_OK)
        memcpy(out, file->base + offset, bytes);
    return code;
}

OMENDB_INTERNAL int segment_id(const struct segment *segment, uint32_t row, uint64_t *id)
{
    return segment_number(segment, segment->ids, row, sizeof *id, id);
}

OMENDB_INTERNAL int segment_vector(const struct segment *segment, uint32_t row,
                                   const uint8_t **vector)
{
    const struct graph_view *view = &segment->full;
    int code = blocks_touch(view->file, view->vectors_offset + (uint64_t)row * view->vectors.stride,
                            view->vectors.stride);
    *vector = rows_at(&view->vectors, row);
    return code;
}

OMENDB_INTERNAL int segment_row_visible(const struct segment *segment, uint32_t row,
                                        uint64_t commit)
{
    uint64_t end = tombstones_get(segment->tombstones, row);
    if (end != 0 && end <= commit)
        return 0;
    return segment->begins == NULL || segment->begins->begin[row] <= commit;
}

/* ------------------------------------------------------------------ the index of ids */

/* The model is verified as a whole before it is used; then it is read like memory. */
static int segment_look_at_model(struct segment *segment)
{
    int code = blocks_touch(&segment->file->file->blocks, segment->model_range.offset,
                            segment->model_range.length);
    if (code != OMENDB_OK)
        return code;
    uint32_t state = idmodel_is_usable(&segment->model) ? SEGMENT_MODEL_USED : SEGMENT_MODEL_NONE;
    atomic_store_explicit(&segment->model_state, state, memory_order_release);
    return OMENDB_OK;
}

static const uint64_t *segment_ascending(const struct segment *segment, uint64_t place)
{
    const uint8_t *base = segment->file->file->blocks.base;
    return (const void *)(base + segment->ascending.offset + place * sizeof(uint64_t));
}

/* The first place of the window in which the model sees `id`, or UINT32_MAX, where there is no
 * model. Asks for the window, which is not verified yet. */
static int segment_window(struct segment *segment, uint64_t id, uint32_t *first)
{
    uint32_t state = atomic_load_explicit(&segment->model_state, memory_order_acquire);
    *first = UINT32_MAX;
    if (OMENDB_UNLIKELY(state == SEGMENT_MODEL_UNREAD)) {
        int code = segment_look_at_model(segment);
        if (code != OMENDB_OK)
            return code;
        state = atomic_load_explicit(&segment->model_state, memory_order_acquire);
    }
    if (state == SEGMENT_MODEL_NONE)
        return OMENDB_OK;
    *first = idmodel_window(&segment->model, id);
    prefetch_bytes(segment_ascending(segment, *first), (IDMODEL_WINDOW + 1) * sizeof id);
    return OMENDB_OK;
}

static int segment_search_by_halves(const struct segment *segment, uint64_t id, uint64_t *place)
{
    uint64_t low = 0, high = segment->info.rows;
    while (low < high) {
        uint64_t value, middle = low + (high - low) / 2;
        int code = segment_number(segment, segment->ascending, middle, sizeof value, &value);
        if (code != OMENDB_OK)
            return code;
        if (value < id)
            low = middle + 1;
        else
            high = middle;
    }
    *place = low;
    return OMENDB_OK;
}

/* Whether a place that is an end of the window is the right one, by the id beyond the end. A place
 * between them lies between two ids that were compared. */
static int segment_is_bracketed(const struct segment *segment, uint64_t id, uint32_t first,
                                uint64_t place, int *is)
{
    uint64_t value = id;
    int code = OMENDB_OK;
    *is = 1;
    if (place == first && first != 0) {
        code = segment_number(segment, segment->ascending, first - 1, sizeof value, &value);
        *is = value < id;
    } else if (place == first + UINT64_C(1) * IDMODEL_WINDOW && place < segment->info.rows) {
        code = segment_number(segment, segment->ascending, place, sizeof value, &value);
        *is = value >= id;
    }
    return code;
}

/* In the window, or wherever else: a model that is wrong, or many equal ids, may lead beside it. */
static int segment_search_window(const struct segment *segment, uint64_t id, uint32_t first,
                                 uint64_t *place)
{
    int is = 0, code = OMENDB_OK;
    if (first != UINT32_MAX)
        code =
            blocks_touch(&segment->file->file->blocks,
                         segment->ascending.offset + first * sizeof id, IDMODEL_WINDOW * sizeof id);
    if (first != UINT32_MAX && code == OMENDB_OK) {
        *place = first + (uint64_t)idmodel_search(segment_ascending(segment, first), id);
        code = segment_is_bracketed(segment, id, first, *place, &is);
    }
    return code != OMENDB_OK || is ? code : segment_search_by_halves(segment, id, place);
}

OMENDB_INTERNAL int segment_first_place(struct segment *segment, uint64_t id, uint64_t *place)
{
    uint32_t first;
    int code = segment_window(segment, id, &first);
    return code == OMENDB_OK ? segment_search_window(segment, id, first, place) : code;
}

static int segment_row_at(const struct segment *segment, uint64_t place, uint64_t id, uint32_t *row)
{
    uint32_t found = (uint32_t)place;
    int code = OMENDB_OK;
    if ((segment->info.flags & SEGMENT_IDS_ASCEND) == 0)
        code = segment_number(segment, segment->sorted_rows, place, sizeof found, &found);
    if (code == OMENDB_OK && found >= segment->info.rows)
        code = error_set(OMENDB_CORRUPT,
                         "seg-%llu: part %u: id %llu is said to be row %u of %u; " ERROR_RESTORE,
                         (unsigned long long)segment->file->file->number, segment->part,
                         (unsigned long long)id, found, segment->info.rows);
    *row = found;
    return code;
}

OMENDB_INTERNAL int segment_at_place(const struct segment *segment, uint64_t place, uint64_t *id,
                                     uint32_t *row)
{
    int code = segment_number(segment, segment->ascending, place, sizeof *id, id);
    return code == OMENDB_OK ? segment_row_at(segment, place, *id, row) : code;
}

static uint64_t segment_filter_place(const struct segment *segment, uint64_t id)
{
    return segment->filter.offset + idmap_filter_offset((size_t)segment->filter.length, id);
}

static int segment_covers(const struct segment *segment, uint64_t id)
{
    return id >= segment->info.smallest_id && id <= segment->info.largest_id;
}

static int segment_may_have(const struct segment *segment, uint64_t id, int *may)
{
    struct block_file *file = &segment->file->file->blocks;
    uint64_t offset = segment_filter_place(segment, id);
    *may = 0;
    int code = blocks_touch(file, offset, IDMAP_FILTER_BLOCK);
    if (code == OMENDB_OK)
        *may = idmap_filter_has(file->base + offset, id);
    return code;
}

/* Filter, window, and the rows of the window come from memory at the same time. */
static void segment_ask_all(const struct segment *segment, uint64_t id, uint32_t first)
{
    const uint8_t *base = segment->file->file->blocks.base;
    prefetch_line(base + segment_filter_place(segment, id));
    if (first != UINT32_MAX && segment->sorted_rows.length != 0)
        prefetch_bytes(base + segment->sorted_rows.offset + first * sizeof(uint32_t),
                       (IDMODEL_WINDOW + 1) * sizeof(uint32_t));
}

/* The row of `id` at the place, or GRAPH_NO_ROW. */
static int segment_match(const struct segment *segment, uint64_t id, uint64_t place, uint32_t *row)
{
    uint64_t value;
    *row = GRAPH_NO_ROW;
    if (place >= segment->info.rows)
        return OMENDB_OK;
    int code = segment_number(segment, segment->ascending, place, sizeof value, &value);
    return code == OMENDB_OK && value == id ? segment_row_at(segment, place, id, row) : code;
}

OMENDB_INTERNAL int segment_find(struct segment *segment, uint64_t id, uint64_t *cursor,
                                 uint32_t *row)
{
    uint64_t place = *cursor;
    int code, may = 0;
    *row = GRAPH_NO_ROW;
    if (place == 0) {
        uint32_t first;
        if (!segment_covers(segment, id))
            return OMENDB_OK;
        code = segment_window(segment, id, &first);
        segment_ask_all(segment, id, first);
        if (code == OMENDB_OK)
            code = segment_may_have(segment, id, &may);
        if (code != OMENDB_OK || !may)
            return code;
        code = segment_search_window(segment, id, first, &place);
        if (code != OMENDB_OK)
            return code;
    }
    *cursor = place + 1;
    return segment_match(segment, id, place, row);
}

/* ------------------------------------------------------------------ rows by id */

static int version_locate_live_in_segments(const struct version *version, uint64_t id,
                                           struct location *location, uint64_t *newest_change)
{
    for (uint32_t i = version->segment_count; i-- > 0;) {
        struct segment *segment = version->segments[i];
        uint64_t cursor = 0;
        uint32_t row;
        for (;;) {
            int code = segment_find(segment, id, &cursor, &row);
            if (code != OMENDB_OK)
                return code;
            if (row == GRAPH_NO_ROW)
                break;
            uint64_t end = tombstones_get(segment->tombstones, row);
            uint64_t begin = segment->begins == NULL ? 0 : segment->begins->begin[row];
            *newest_change = end > *newest_change ? end : *newest_change;
            *newest_change = begin > *newest_change ? begin : *newest_change;
            if (end == 0)
                *location = (struct location){NULL, segment, version->segment_overlays[i], row};
        }
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int version_locate_live(const struct version *version, uint64_t id,
                                        struct location *location, uint64_t *newest_change)
{
    memset(location, 0, sizeof *location);
    *newest_change = 0;
    for (uint32_t i = version->memtable_count; i-- > 0;) {
        struct memtable *memtable = version->memtables[i];
        uint32_t row = memtable_find(memtable, id);
        if (row == GRAPH_NO_ROW)
            continue;
        /* The newest row of an id decides: whatever is older ended before it began. */
        uint64_t end = tombstones_get(memtable->tombstones, row);
        *newest_change = end != 0 ? end : memtable_begin(memtable, row);
        if (end == 0)
            *location = (struct location){memtable, NULL, version->memtable_overlays[i], row};
        return OMENDB_OK;
    }
    return version_locate_live_in_segments(version, id, location, newest_change);
}

static int version_locate_in_memtable(const struct version *version, uint32_t index, uint64_t id,
                                      uint64_t commit, struct location *location)
{
    struct memtable *memtable = version->memtables[index];
    for (uint32_t row = memtable_find(memtable, id); row != GRAPH_NO_ROW;
         row = memtable_previous(memtable, row)) {
        uint64_t end = tombstones_get(memtable->tombstones, row);
        if (memtable_begin(memtable, row) > commit)
            continue;
        if (end == 0 || end > commit)
            *location = (struct location){memtable, NULL, version->memtable_overlays[index], row};
        return 1;
    }
    return 0;
}

OMENDB_INTERNAL int version_locate(const struct version *version, uint64_t id, uint64_t commit,
                                   struct location *location)
{
    memset(location, 0, sizeof *location);
    for (uint32_t i = version->memtable_count; i-- > 0;) {
        if (version_locate_in_memtable(version, i, id, commit, location))
            return OMENDB_OK;
    }
    for (uint32_t i = version->segment_count; i-- > 0;) {
        uint64_t cursor = 0;
        uint32_t row;
        do {
            int code = segment_find(version->segments[i], id, &cursor, &row);
            if (code != OMENDB_OK)
                return code;
            if (row != GRAPH_NO_ROW && segment_row_visible(version->segments[i], row, commit)) {
                *location = (struct location){NULL, version->segments[i],
                                              version->segment_overlays[i], row};
                return OMENDB_OK;
            }
        } while (row != GRAPH_NO_ROW);
    }
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ many rows by id */

/* Ids of a batch that are still sought, and where in a segment each may be. */
struct version_probe {
    uint32_t index;
    uint32_t first; /* of the window */
    uint64_t place;
};

struct version_batch {
    const uint64_t *ids;
    uint64_t commit;
    struct location *locations;
    uint32_t pending[VERSION_BATCH];
    uint32_t pending_count;
    struct version_probe probes[VERSION_BATCH];
    uint32_t probe_count;
};

static void version_ask_memtables(const struct version *version, uint32_t count,
                                  struct version_batch *batch)
{
    for (uint32_t i = 0; i < count; i++) {
        int decided = 0;
        for (uint32_t m = version->memtable_count; m-- > 0 && !decided;)
            decided = version_locate_in_memtable(version, m, batch->ids[i], batch->commit,
                                                 &batch->locations[i]);
        if (!decided)
            batch->pending[batch->pending_count++] = i;
    }
}

/* Those that the segment may have, by its range and its filter, with their windows. */
static int version_probe_segment(struct segment *segment, struct version_batch *batch)
{
    const uint8_t *base = segment->file->file->blocks.base;
    int code = OMENDB_OK;
    batch->probe_count = 0;
    for (uint32_t i = 0; i < batch->pending_count; i++) {
        uint64_t id = batch->ids[batch->pending[i]];
        if (!segment_covers(segment, id))
            continue;
        batch->probes[batch->probe_count++].index = batch->pending[i];
        prefetch_line(base + segment_filter_place(segment, id));
    }
    uint32_t asked = batch->probe_count;
    batch->probe_count = 0;
    for (uint32_t i = 0; i < asked && code == OMENDB_OK; i++) {
        struct version_probe *probe = &batch->probes[batch->probe_count];
        int may;
        probe->index = batch->probes[i].index;
        code = segment_may_have(segment, batch->ids[probe->index], &may);
        if (code != OMENDB_OK || !may)
            continue;
        code = segment_window(segment, batch->ids[probe->index], &probe->first);
        batch->probe_count++;
    }
    return code;
}

/* The visible row among those of the id, from the place on. */
static int version_take_row(const struct version *version, uint32_t index,
                            const struct version_probe *probe, struct version_batch *batch)
{
    struct segment *segment = version->segments[index];
    uint64_t place = probe->place;
    uint32_t row;
    int code = segment_match(segment, batch->ids[probe->index], place, &row);
    while (code == OMENDB_OK && row != GRAPH_NO_ROW &&
           !segment_row_visible(segment, row, batch->commit))
        code = segment_match(segment, batch->ids[probe->index], ++place, &row);
    if (code == OMENDB_OK && row != GRAPH_NO_ROW)
        batch->locations[probe->index] =
            (struct location){NULL, segment, version->segment_overlays[index], row};
    return code;
}

static int version_ask_segment(const struct version *version, uint32_t index,
                               struct version_batch *batch)
{
    struct segment *segment = version->segments[index];
    const uint8_t *base = segment->file->file->blocks.base;
    int code = version_probe_segment(segment, batch);
    for (uint32_t i = 0; i < batch->probe_count && code == OMENDB_OK; i++) {
        struct version_probe *probe = &batch->probes[i];
        code =
            segment_search_window(segment, batch->ids[probe->index], probe->first, &probe->place);
        if (segment->sorted_rows.length != 0)
            prefetch_line(base + segment->sorted_rows.offset + probe->place * sizeof(uint32_t));
    }
    for (uint32_t i = 0; i < batch->probe_count && code == OMENDB_OK; i++)
        code = version_take_row(version, index, &batch->probes[i], batch);
    return code;
}

static void version_drop_found(struct version_batch *batch)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < batch->pending_count; i++) {
        if (batch->locations[batch->pending[i]].segment == NULL)
            batch->pending[kept++] = batch->pending[i];
    }
    batch->pending_count = kept;
}

OMENDB_INTERNAL int version_locate_batch(const struct version *version, const uint64_t *ids,
                                         uint32_t count, uint64_t commit,
                                         struct location *locations)
{
    struct version_batch batch;
    int code = OMENDB_OK;
    batch.ids = ids;
    batch.commit = commit;
    batch.locations = locations;
    batch.pending_count = 0;
    memset(locations, 0, count * sizeof *locations);
    version_ask_memtables(version, count, &batch);
    for (uint32_t i = version->segment_count;
         i-- > 0 && batch.pending_count != 0 && code == OMENDB_OK;) {
        code = version_ask_segment(version, i, &batch);
        version_drop_found(&batch);
    }
    return code;
}

OMENDB_INTERNAL int location_vector(const struct location *location, const uint8_t **vector)
{
    if (location->segment != NULL)
        return segment_vector(location->segment, location->row, vector);
    *vector = memtable_vector(location->memtable, location->row);
    return OMENDB_OK;
}

struct version_dead {
    uint64_t commit;
    uint64_t dead;
    const struct begin_array
        *begins; /* rows that are not counted as begun must not be counted as dead, too */
};

static int version_count_dead(void *context, uint32_t row, uint64_t end)
{
    struct version_dead *dead = context;
    if (end <= dead->commit && (dead->begins == NULL || dead->begins->begin[row] <= dead->commit))
        dead->dead++;
    return 0;
}

OMENDB_INTERNAL int version_count(const struct version *version, uint64_t commit, uint64_t *count)
{
    *count = 0;
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        struct memtable *memtable = version->memtables[i];
        uint32_t rows = memtable_visible_rows(memtable, commit);
        OMENDB_YIELD("version_count, rows");
        struct version_dead dead = {commit, 0, NULL};
        tombstones_each(memtable->tombstones, rows, version_count_dead, &dead);
        *count += rows - dead.dead;
    }
    for (uint32_t i = 0; i < version->segment_count; i++) {
        const struct segment *segment = version->segments[i];
        struct version_dead dead = {commit, 0, segment->begins};
        uint64_t rows = segment->info.rows;
        for (uint32_t row = 0; segment->begins != NULL && segment->begins->newest > commit &&
                               row < segment->info.rows;
             row++)
            rows -= segment->begins->begin[row] > commit;
        tombstones_each(segment->tombstones, segment->info.rows, version_count_dead, &dead);
        *count += rows - dead.dead;
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL uint64_t version_growing_tail_bytes(const struct version *version,
                                                    size_t vector_bytes)
{
    if (version->memtable_count == 0)
        return 0;
    const struct memtable *memtable = version->memtables[version->memtable_count - 1];
    uint32_t indexed = memtable_graph_rows(memtable);
    uint32_t count = atomic_load_explicit(&memtable->count, memory_order_relaxed);
    return (uint64_t)(count - indexed) * vector_bytes;
}

OMENDB_INTERNAL uint64_t version_linking_tail_bytes(const struct version *version,
                                                    size_t vector_bytes)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        const struct memtable *memtable = version->memtables[i];
        uint32_t indexed = memtable_graph_rows(memtable);
        if (atomic_load(&memtable->sealed) == 0 && !memtable_has_drifted(memtable))
            rows += atomic_load_explicit(&memtable->count, memory_order_relaxed) - indexed;
    }
    return rows * vector_bytes;
}

OMENDB_INTERNAL uint64_t version_unindexed_bytes(const struct version *version, size_t vector_bytes)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        uint32_t indexed = memtable_graph_rows(version->memtables[i]);
        rows += atomic_load_explicit(&version->memtables[i]->count, memory_order_relaxed) - indexed;
    }
    for (uint32_t i = 0; i < version->segment_count; i++)
        rows += version->segments[i]->info.rows - version->segments[i]->info.indexed_rows;
    return rows * vector_bytes;
}

/* ------------------------------------------------------------------ scratch */

/* Of hits and candidates, in a pooled scratch: those of a k of some 5,000. */
#define SCRATCH_KEPT_BYTES (1u << 20)

OMENDB_INTERNAL void scratch_destroy(struct scratch *scratch)
{
    if (scratch == NULL)
        return;
    graph_scratch_destroy(scratch->graph);
    memory_free(scratch->memory, scratch->hits, scratch->hit_capacity * sizeof *scratch->hits);
    memory_free(scratch->memory, scratch->found, scratch->found_capacity * sizeof *scratch->found);
    memory_free(scratch->memory, scratch->best, scratch->best_capacity * sizeof *scratch->best);
    memory_free(scratch->memory, scratch->merged, scratch->best_capacity * sizeof *scratch->merged);
    memory_free(scratch->memory, scratch->vector, scratch->vector_capacity);
    memory_free(scratch->memory, scratch->code, scratch->code_capacity);
    matches_destroy(&scratch->answers.matches);
    matches_destroy(&scratch->kept.matches);
    column_filter_destroy(&scratch->answers.plan);
    column_filter_destroy(&scratch->kept.plan);
    graph_gathered_destroy(&scratch->kept.gathered);
    memory_free(scratch->memory, scratch, sizeof *scratch);
}

static struct scratch *scratch_make(struct memory *memory)
{
    struct scratch *scratch = memory_zalloc(memory, sizeof *scratch);
    if (scratch == NULL)
        return NULL;
    scratch->memory = memory;
    scratch->answers.matches.memory = scratch->kept.matches.memory = memory;
    scratch->kept.gathered.memory = memory;
    scratch->graph = graph_scratch_create(memory);
    if (scratch->graph == NULL) {
        scratch_destroy(scratch);
        return NULL;
    }
    return scratch;
}

/* A search begins with this. */
static struct scratch *scratch_create(struct memory *memory)
{
    memory_begin_reading();
    struct scratch *scratch = scratch_make(memory);
    memory_end_reading();
    return scratch;
}

OMENDB_INTERNAL struct scratch *scratch_take(omendb *db)
{
    for (size_t i = 0; i < DATABASE_SCRATCH_SLOTS; i++) {
        if (atomic_load_explicit(&db->scratch[i], memory_order_relaxed) == NULL)
            continue;
        struct scratch *scratch = atomic_exchange(&db->scratch[i], NULL);
        if (scratch != NULL)
            return scratch;
    }
    return scratch_create(&db->memory);
}

static void scratch_trim_plan(struct scratch_answers *answers)
{
    if (column_filter_bytes(&answers->plan) <= SCRATCH_KEPT_BYTES)
        return;
    column_filter_destroy(&answers->plan);
    answers->matches.batch = 0;
}

/* What one search with a large k or ef grew beyond SCRATCH_KEPT_BYTES goes back with the scratch.
 * The marks of rows stay: any walk needs them. */
static void scratch_trim(struct scratch *scratch)
{
    size_t hits = scratch->hit_capacity * sizeof *scratch->hits,
           found = scratch->found_capacity * sizeof *scratch->found,
           best = scratch->best_capacity * sizeof *scratch->best;
    scratch_trim_plan(&scratch->answers);
    scratch_trim_plan(&scratch->kept);
    if (scratch->kept.gathered.bytes > SCRATCH_KEPT_BYTES)
        graph_gathered_destroy(&scratch->kept.gathered);
    if (hits + found + 2 * best + graph_scratch_keys_bytes(scratch->graph) <= SCRATCH_KEPT_BYTES)
        return;
    graph_scratch_drop_keys(scratch->graph);
    memory_free(scratch->memory, scratch->hits, hits);
    memory_free(scratch->memory, scratch->found, found);
    memory_free(scratch->memory, scratch->best, best);
    memory_free(scratch->memory, scratch->merged, best);
    scratch->hits = NULL;
    scratch->found = scratch->best = scratch->merged = NULL;
    scratch->hit_capacity = scratch->found_capacity = scratch->best_capacity = 0;
}

OMENDB_INTERNAL void scratch_drop_idle(omendb *db)
{
    for (size_t i = 0; i < DATABASE_SCRATCH_SLOTS; i++)
        scratch_destroy(atomic_exchange(&db->scratch[i], NULL));
}

OMENDB_INTERNAL void scratch_give(omendb *db, struct scratch *scratch)
{
    if (scratch == NULL)
        return;
    scratch_trim(scratch);
    for (size_t i = 0; i < DATABASE_SCRATCH_SLOTS; i++) {
        struct scratch *empty = NULL;
        if (atomic_compare_exchange_strong(&db->scratch[i], &empty, scratch))
            return;
    }
    scratch_destroy(scratch);
}

/* A larger block; the content is not kept. */
static void *scratch_replace(struct memory *memory, void *block, size_t old_bytes, size_t bytes)
{
    memory_free(memory, block, old_bytes);
    return bytes == 0 ? NULL : memory_alloc(memory, bytes);
}

static int scratch_reserve_found(struct scratch *scratch, size_t found)
{
    if (found <= scratch->found_capacity)
        return OMENDB_OK;
    scratch->found = scratch_replace(scratch->memory, scratch->found,
                                     scratch->found_capacity * sizeof *scratch->found,
                                     memory_multiply(found, sizeof *scratch->found));
    scratch->found_capacity = scratch->found == NULL ? 0 : found;
    return scratch->found == NULL ? OMENDB_NOMEM : OMENDB_OK;
}

static int scratch_reserve_best(struct scratch *scratch, size_t best)
{
    size_t old_bytes = scratch->best_capacity * sizeof *scratch->best,
           bytes = memory_multiply(best, sizeof *scratch->best);
    if (best <= scratch->best_capacity)
        return OMENDB_OK;
    scratch->best = scratch_replace(scratch->memory, scratch->best, old_bytes, bytes);
    scratch->merged = scratch_replace(scratch->memory, scratch->merged, old_bytes, bytes);
    scratch->best_capacity = best;
    if (scratch->best != NULL && scratch->merged != NULL)
        return OMENDB_OK;
    memory_free(scratch->memory, scratch->best, bytes);
    memory_free(scratch->memory, scratch->merged, bytes);
    scratch->best = scratch->merged = NULL;
    scratch->best_capacity = 0;
    return OMENDB_NOMEM;
}

OMENDB_INTERNAL int scratch_reserve_code(struct scratch *scratch, size_t bytes)
{
    if (bytes <= scratch->code_capacity)
        return OMENDB_OK;
    scratch->code = scratch_replace(scratch->memory, scratch->code, scratch->code_capacity, bytes);
    scratch->code_capacity = scratch->code == NULL ? 0 : bytes;
    return scratch->code == NULL ? OMENDB_NOMEM : OMENDB_OK;
}

OMENDB_INTERNAL int scratch_reserve(struct scratch *scratch, size_t hits, size_t found, size_t best,
                                    size_t vector_bytes)
{
    if (hits > scratch->hit_capacity) {
        size_t bytes = memory_multiply(hits, sizeof *scratch->hits);
        scratch->hits = scratch_replace(scratch->memory, scratch->hits,
                                        scratch->hit_capacity * sizeof *scratch->hits, bytes);
        scratch->hit_capacity = scratch->hits == NULL ? 0 : hits;
        if (scratch->hits == NULL)
            return OMENDB_NOMEM;
    }
    if (vector_bytes > scratch->vector_capacity) {
        memory_begin_reading(); /* where it is a query, one is about to begin */
        scratch->vector = scratch_replace(scratch->memory, scratch->vector,
                                          scratch->vector_capacity, vector_bytes);
        memory_end_reading();
        scratch->vector_capacity = scratch->vector == NULL ? 0 : vector_bytes;
        if (scratch->vector == NULL)
            return OMENDB_NOMEM;
    }
    int code = scratch_reserve_found(scratch, found);
    return code == OMENDB_OK ? scratch_reserve_best(scratch, best) : code;
}

OMENDB_INTERNAL void database_log(omendb *db, int code, const char *message)
{
    if (db->log != NULL)
        db->log(db->log_context, code, message);
}

#undef SCRATCH_KEPT_BYTES
