/* checkpoint.c: from memory and log to segments and manifest.
 *
 * 1. Freeze. As leader of syncing and under commit_mutex: sync the rest of the log, begin a new
 * one, take the commit number S, and let every memtable stop growing. Nothing else waits: later
 * commits go to new memtables and the new log.
 * 2. Write. Frozen memtables become parts of segment files (those under 4 MiB share one pack);
 * tombstones with an end <= S become an overlay. A checkpoint that nobody waits for links the rest
 * of their rows first, where that is little and the collection is searched: every search would
 * compare them one by one until a merge links them. The others build no graph and write such rows
 * as they are.
 * 3. Publish. A manifest with S, then CURRENT. Before it a crash replays the old log and the new
 * one; after it only the new one.
 * 4. Install. Under commit_mutex versions take the segments in place of the memtables; all memory
 * for that was taken before 3, so it cannot fail. A segment shares the memtable's tombstones, since
 * rows keep their numbers. Any failure before 3 leaves the old state in force: memtables stay
 * frozen and are written by the next checkpoint.
 *
 * Overlay: a part for each segment with tombstones, one section of ascending u32 rows. */
#include "database.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define CHECKPOINT_PACK_BYTES (UINT64_C(4) << 20)
#define CHECKPOINT_CODED      8192               /* rows coded between releases of their vectors */
#define CHECKPOINT_CODES      ((size_t)64 << 10) /* bytes of codes written at a time */
#ifndef CHECKPOINT_OVERLAYS_MIN
#define CHECKPOINT_OVERLAYS_MIN (UINT64_C(4) << 20) /* fewer bytes of overlays do not matter */
#endif
#define CHECKPOINT_LINK_BYTES   (UINT64_C(8) << 20) /* of vectors: more are left to a merge */
#define CHECKPOINT_LINK_ROWS    64                  /* between looks at who may be waiting */
#define CHECKPOINT_OVERLAY_PART 512 /* what a part of an overlay takes beside its rows */

/* A memtable on its way to becoming a segment. */
struct checkpoint_item {
    struct collection *collection; /* referenced */
    struct memtable *memtable;     /* referenced */
    uint32_t file; /* index in checkpoint.files; UINT32_MAX: nothing of it is alive */
    uint32_t part;
    struct segment *segment;
};

struct checkpoint {
    omendb *db;
    uint64_t commit;
    struct manifest manifest;
    struct collection **collections; /* referenced; parallel to manifest.collections */
    size_t collection_capacity;
    struct checkpoint_item *items;
    size_t item_count, item_capacity;
    struct manifest_file *files; /* written by this checkpoint */
    size_t file_count, file_capacity;
    struct shared_file **opened;
    struct segment_writer *pack;
    uint64_t pack_number;
    /* Overlay */
    struct segment *
        *marked; /* segments whose tombstones are written anew; referenced by versions or items */
    size_t marked_count, marked_capacity;
    struct manifest_file overlay; /* number 0: none */
    int overlays_sprawl;          /* all of them are written anew */
    struct version **versions;    /* parallel to collections: to be installed, or NULL */
    int links;                    /* nobody waits for it */
    uint64_t log_bytes;           /* of the logs that it makes superfluous */
    uint64_t prepared_end;        /* for omendb.prepared_end */
};

/* ------------------------------------------------------------------ ids */

struct checkpoint_id {
    uint64_t id;
    uint32_t row;
};

static int checkpoint_compare_ids(const void *left, const void *right)
{
    const struct checkpoint_id *a = left, *b = right;
    if (a->id != b->id)
        return a->id < b->id ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

static int checkpoint_write_sorted(struct segment_writer *writer, struct memory *memory,
                                   const uint64_t *ids, uint32_t rows)
{
    struct checkpoint_id *sorted = memory_array(memory, rows, sizeof *sorted);
    if (sorted == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < rows; i++)
        sorted[i] = (struct checkpoint_id){ids[i], i};
    sort_array(sorted, rows, sizeof *sorted, checkpoint_compare_ids);
    int code = segment_writer_begin_section(writer, SECTION_SORTED_IDS);
    for (uint32_t i = 0; i < rows && code == OMENDB_OK; i++)
        code = segment_writer_append(writer, &sorted[i].id, sizeof sorted[i].id);
    if (code == OMENDB_OK)
        code = segment_writer_begin_section(writer, SECTION_SORTED_ROWS);
    for (uint32_t i = 0; i < rows && code == OMENDB_OK; i++)
        code = segment_writer_append(writer, &sorted[i].row, sizeof sorted[i].row);
    memory_free(memory, sorted, rows * sizeof *sorted);
    return code;
}

static int checkpoint_write_filter(struct segment_writer *writer, struct memory *memory,
                                   const uint64_t *ids, uint32_t rows)
{
    size_t bytes = idmap_filter_bytes(rows);
    uint8_t *filter = memory_zalloc(memory, bytes);
    if (filter == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < rows; i++)
        idmap_filter_add(filter, bytes, ids[i]);
    int code = segment_writer_begin_section(writer, SECTION_ID_FILTER);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, filter, bytes);
    memory_free(memory, filter, bytes);
    return code;
}

OMENDB_INTERNAL int checkpoint_write_ids(struct segment_writer *writer, struct memory *memory,
                                         const uint64_t *ids, uint32_t rows, struct part_info *info)
{
    int ascend = 1;
    info->smallest_id = UINT64_MAX;
    info->largest_id = 0;
    for (uint32_t i = 0; i < rows; i++) {
        ascend &= i == 0 || ids[i - 1] <= ids[i];
        info->smallest_id = ids[i] < info->smallest_id ? ids[i] : info->smallest_id;
        info->largest_id = ids[i] > info->largest_id ? ids[i] : info->largest_id;
    }
    info->flags |= ascend ? SEGMENT_IDS_ASCEND : 0;
    int code = segment_writer_begin_section(writer, SECTION_IDS);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, ids, rows * sizeof *ids);
    if (code == OMENDB_OK && !ascend)
        code = checkpoint_write_sorted(writer, memory, ids, rows);
    if (code == OMENDB_OK)
        code = checkpoint_write_filter(writer, memory, ids, rows);
    return code;
}

/* ------------------------------------------------------------------ one memtable */

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

/* Rows of a growing store lie in runs of 64. */
static int checkpoint_write_rows(struct segment_writer *writer, enum section_type type,
                                 const struct rows_view *rows, uint32_t count)
{
    int code = segment_writer_begin_section(writer, type);
    for (uint32_t row = 0; row < count && code == OMENDB_OK; row += rows->mask + 1) {
        uint32_t run = count - row < rows->mask + 1 ? count - row : rows->mask + 1;
        code = segment_writer_append(writer, rows_at(rows, row), run * rows->stride);
    }
    return code;
}

OMENDB_INTERNAL void checkpoint_describe(const struct collection *collection,
                                         struct part_info *info)
{
    memset(info, 0, sizeof *info);
    info->collection = collection->id;
    info->M = collection->schema.M;
    info->vector_stride = (uint32_t)collection->vector_bytes;
    info->dim = collection->schema.dim;
    info->scalar = collection->schema.scalar;
    info->metric = collection->schema.metric;
}

OMENDB_INTERNAL void checkpoint_describe_graph(const struct graph_view *view, uint32_t indexed_rows,
                                               struct part_info *info)
{
    /* An insertion that failed can leave the entry point beyond the finished rows: then the graph
     * is of no use. */
    info->indexed_rows = view->entry_row < indexed_rows ? indexed_rows : 0;
    info->upper_count = info->indexed_rows == 0 ? 0 : view->upper_count;
    info->entry_row = view->entry_row;
    info->entry_level = view->entry_level;
}

OMENDB_INTERNAL int checkpoint_write_links(struct segment_writer *writer,
                                           const struct graph_view *view,
                                           const struct part_info *info)
{
    int code = OMENDB_OK;
    if (info->indexed_rows == 0)
        return OMENDB_OK;
    code = checkpoint_write_rows(writer, SECTION_LINKS, &view->links, info->indexed_rows);
    if (code == OMENDB_OK)
        code = checkpoint_write_rows(writer, SECTION_LEVELS, &view->levels, info->indexed_rows);
    if (code == OMENDB_OK)
        code = checkpoint_write_rows(writer, SECTION_UPPER_INDEX, &view->upper_index,
                                     info->indexed_rows);
    if (code == OMENDB_OK)
        code = checkpoint_write_rows(writer, SECTION_UPPER_LINKS, &view->upper_links,
                                     info->upper_count);
    return code;
}

OMENDB_INTERNAL struct code_format checkpoint_code_format(const struct collection *collection,
                                                          const struct part_info *info)
{
    return (struct code_format){collection->format, info->code_low, info->code_step};
}

static uint32_t checkpoint_sample_row(uint32_t rows, uint32_t take, uint32_t i)
{
    return (uint32_t)((uint64_t)i * rows / take);
}

OMENDB_INTERNAL int checkpoint_choose_codes(const struct collection *collection,
                                            const struct rows_view *vectors, uint32_t first,
                                            uint32_t rows, struct code_format *format)
{
    struct code_sample sample;
    uint32_t take = rows < CODES_SAMPLE_VECTORS ? rows : CODES_SAMPLE_VECTORS, poor = 0;
    int code = codes_sample_begin(&sample, &collection->db->memory);
    if (code != OMENDB_OK)
        return code;
    for (uint32_t i = 0; i < take; i++)
        codes_sample_add(&sample, &collection->format,
                         rows_at(vectors, first + checkpoint_sample_row(rows, take, i)));
    codes_choose(&sample, &collection->format, format);
    /* The sorted sample is of no use any more, and longer than the longest code. */
    uint8_t *scrap = (uint8_t *)sample.sorted;
    for (uint32_t i = 0; i < take && format->step != 0.0f; i++)
        poor += codes_encode(format, rows_at(vectors, first + checkpoint_sample_row(rows, take, i)),
                             scrap) == CODE_POOR;
    if (!codes_serve(format, take, poor))
        format->step = 0.0f;
    codes_sample_end(&sample);
    return OMENDB_OK;
}

/* OMENDB_OK with step 0: the vectors have no codes, which `info` then says. */
static int checkpoint_begin_codes(const struct collection *collection,
                                  const struct rows_view *vectors, struct part_info *info,
                                  uint32_t rows, struct code_format *format)
{
    *format = (struct code_format){collection->format, 0.0f, 0.0f};
    if (rows == 0 || !codes_apply_to(&collection->format))
        return OMENDB_OK;
    int code = checkpoint_choose_codes(collection, vectors, 0, rows, format);
    if (code == OMENDB_OK && format->step == 0.0f)
        info->flags |= SEGMENT_NO_RANGE;
    return code;
}

static void checkpoint_end_codes(const struct code_format *format, int exact,
                                 struct part_info *info)
{
    info->code_low = format->low;
    info->code_step = format->step;
    if (exact && codes_are_exact(format))
        info->flags |= SEGMENT_CODES_EXACT;
}

OMENDB_INTERNAL int checkpoint_make_codes(const struct collection *collection,
                                          const struct graph_view *full, struct part_info *info,
                                          uint8_t **codes)
{
    struct code_format format;
    size_t stride = codes_stride(collection->schema.dim);
    int exact = 1;
    *codes = NULL;
    int code = checkpoint_begin_codes(collection, &full->vectors, info, full->count, &format);
    if (code != OMENDB_OK || format.step == 0.0f)
        return code;
    *codes = memory_alloc_aligned(&collection->db->memory, memory_multiply(full->count, stride));
    if (*codes == NULL)
        return OMENDB_NOMEM;
    graph_release_vectors(full, 0, full->count); /* what was read around the sample */
    for (uint32_t first = 0, last; first < full->count; first = last) {
        last = full->count - first < CHECKPOINT_CODED ? full->count : first + CHECKPOINT_CODED;
        for (uint32_t row = first; row < last; row++)
            exact &= codes_encode(&format, rows_at(&full->vectors, row), *codes + row * stride) ==
                     CODE_EXACT;
        graph_release_vectors(full, first, last);
    }
    checkpoint_end_codes(&format, exact, info);
    return OMENDB_OK;
}

OMENDB_INTERNAL void checkpoint_report_codes(const struct collection *collection)
{
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof text,
             "a segment of collection \"%.64s\" was written without codes, which makes searching "
             "it slow until a merge has memory for them: %.300s",
             collection->name, error_text());
    database_log(collection->db, OMENDB_NOMEM, text);
}

/* Codes of the rows, `run` of them at a time. */
static int checkpoint_append_codes(struct segment_writer *writer, const struct rows_view *vectors,
                                   const struct code_format *format, uint8_t *codes, uint32_t run,
                                   struct part_info *info)
{
    size_t stride = codes_stride(info->dim);
    int exact = 1, code = segment_writer_begin_section(writer, SECTION_CODES);
    for (uint32_t first = 0, count; first < info->rows && code == OMENDB_OK; first += count) {
        count = info->rows - first < run ? info->rows - first : run;
        for (uint32_t i = 0; i < count; i++)
            exact &=
                codes_encode(format, rows_at(vectors, first + i), codes + i * stride) == CODE_EXACT;
        code = segment_writer_append(writer, codes, count * stride);
    }
    checkpoint_end_codes(format, exact, info);
    return code;
}

/* Without memory the segment is walked over its vectors, until it is merged. */
static int checkpoint_write_codes(struct segment_writer *writer, const struct checkpoint_item *item,
                                  const struct rows_view *vectors, struct part_info *info)
{
    struct memory *memory = item->memtable->memory;
    struct code_format format;
    size_t stride = codes_stride(info->dim);
    uint32_t run = stride < CHECKPOINT_CODES ? (uint32_t)(CHECKPOINT_CODES / stride) : 1;
    uint8_t *codes = NULL;
    if (info->indexed_rows == 0) /* nothing to walk, and soon merged */
        return OMENDB_OK;
    int code = checkpoint_begin_codes(item->collection, vectors, info, info->rows, &format);
    if (code == OMENDB_OK && format.step == 0.0f)
        return OMENDB_OK;
    if (code == OMENDB_OK) {
        codes = memory_alloc(memory, run * stride);
        code = codes == NULL ? OMENDB_NOMEM : OMENDB_OK;
    }
    if (code == OMENDB_OK) {
        code = checkpoint_append_codes(writer, vectors, &format, codes, run, info);
    } else if (code == OMENDB_NOMEM) {
        checkpoint_report_codes(item->collection);
        code = OMENDB_OK;
    }
    memory_free(memory, codes, run * stride);
    return code;
}

static int checkpoint_write_memtable(struct segment_writer *writer, struct checkpoint_item *item)
{
    struct memtable *memtable = item->memtable;
    struct graph_view view;
    struct part_info info;
    graph_get_view(memtable->graph, &view);
    struct rows_view vectors = memtable_vectors(memtable);
    checkpoint_describe(item->collection, &info);
    info.rows = atomic_load(&memtable->count);
    checkpoint_describe_graph(&view, memtable_graph_rows(memtable), &info);
    uint64_t *ids = memory_array(memtable->memory, info.rows, sizeof *ids);
    if (ids == NULL)
        return OMENDB_NOMEM;
    for (uint32_t row = 0; row < info.rows; row++)
        ids[row] = memtable_id(memtable, row);
    int code = segment_writer_begin_part(writer);
    if (code == OMENDB_OK)
        code = checkpoint_write_rows(writer, SECTION_VECTORS, &vectors, info.rows);
    if (code == OMENDB_OK)
        code = checkpoint_write_links(writer, &view, &info);
    if (code == OMENDB_OK)
        code = checkpoint_write_codes(writer, item, &vectors, &info);
    if (code == OMENDB_OK)
        code = checkpoint_write_ids(writer, memtable->memory, ids, info.rows, &info);
    if (code == OMENDB_OK)
        code = segment_writer_end_part(writer, &info);
    item->part = segment_writer_parts(writer) - 1;
    memory_free(memtable->memory, ids, info.rows * sizeof *ids);
    return code;
}

/* Links what is left of a frozen memtable, beside the threads of the background. Ends early when
 * the database closes, before the log that was begun stops writers, and where memory is short: rows
 * that are not linked are written all the same. */
static void checkpoint_link(const struct checkpoint *checkpoint, const struct checkpoint_item *item)
{
    omendb *db = checkpoint->db;
    struct memtable *memtable = item->memtable;
    uint32_t linked = memtable_graph_rows(memtable), done = 1;
    uint64_t left = atomic_load(&memtable->count) - linked;
    int code = OMENDB_OK;
    if (left * item->collection->vector_bytes > CHECKPOINT_LINK_BYTES ||
        memtable_has_drifted(memtable))
        return;
    struct scratch *scratch = scratch_take(db);
    while (scratch != NULL && code == OMENDB_OK && done != 0 && !atomic_load(&db->stopping) &&
           atomic_load(&db->log_bytes) < db->wal_limit / 2)
        code = memtable_index(memtable, scratch->graph, checkpoint->commit, CHECKPOINT_LINK_ROWS,
                              &done);
    scratch_give(db, scratch);
}

/* Nothing is inserted after this, and every row of the graph can be reached. */
static int checkpoint_seal(omendb *db, struct memtable *memtable)
{
    memtable_seal(memtable);
    uint32_t indexed = atomic_load(&memtable->indexed);
    struct scratch *scratch = scratch_take(db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    graph_cut(memtable->graph, indexed);
    int code = indexed == 0 ? OMENDB_OK : graph_repair(memtable->graph, scratch->graph, indexed);
    scratch_give(db, scratch);
    return code;
}

static uint64_t checkpoint_memtable_bytes(const struct checkpoint_item *item)
{
    uint64_t rows = atomic_load(&item->memtable->count);
    return rows * (item->collection->vector_bytes +
                   item->collection->schema.M * 2 * sizeof(uint32_t) + 32);
}

struct checkpoint_alive {
    uint64_t horizon;
    uint32_t dead;
};

static int checkpoint_count_dead(void *context, uint32_t row, uint64_t end)
{
    struct checkpoint_alive *alive = context;
    (void)row;
    alive->dead += end <= alive->horizon;
    return 0;
}

/* Whether any transaction that is open or to come, or a replay from S on, can see a row of it. */
static int checkpoint_is_alive(const struct checkpoint *checkpoint, const struct memtable *memtable)
{
    uint64_t oldest = txn_oldest(checkpoint->db);
    struct checkpoint_alive alive = {oldest < checkpoint->commit ? oldest : checkpoint->commit, 0};
    uint32_t rows = atomic_load(&memtable->count);
    tombstones_each(memtable->tombstones, rows, checkpoint_count_dead, &alive);
    return alive.dead < rows;
}

/* ------------------------------------------------------------------ files */

static uint64_t checkpoint_next_file(omendb *db)
{
    return atomic_fetch_add(&db->next_file, 1);
}

/* Before anything is made in the directory: it must not be another database's by now.
 * maintenance_mutex. */
static int checkpoint_confirm(omendb *db)
{
    if (db->published.number == 0 || db->in_memory)
        return OMENDB_OK;
    int code = manifest_confirm(&db->storage, &db->published);
    return code == OMENDB_POISONED ? commit_poison(db, code) : code;
}

OMENDB_INTERNAL int checkpoint_protect(omendb *db, uint64_t *number)
{
    platform_mutex_lock(&db->maintenance_mutex);
    int code = checkpoint_confirm(db);
    size_t i = 0;
    while (i < DATABASE_UNPUBLISHED && db->unpublished[i] != 0)
        i++;
    if (code == OMENDB_OK && i == DATABASE_UNPUBLISHED)
        code = error_set(OMENDB_BUSY, "too many files are being written at once; try again");
    if (code == OMENDB_OK)
        *number = db->unpublished[i] = checkpoint_next_file(db);
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

OMENDB_INTERNAL void checkpoint_unprotect(omendb *db, uint64_t number)
{
    for (size_t i = 0; i < DATABASE_UNPUBLISHED; i++) {
        if (db->unpublished[i] == number)
            db->unpublished[i] = 0;
    }
}

static int checkpoint_finish_file(struct checkpoint *checkpoint, struct segment_writer *writer,
                                  uint64_t number)
{
    omendb *db = checkpoint->db;
    if (checkpoint->file_count == checkpoint->file_capacity) {
        size_t capacity = checkpoint->file_capacity * 2 + 8;
        struct manifest_file *files =
            memory_resize(&db->memory, checkpoint->files, checkpoint->file_capacity * sizeof *files,
                          capacity * sizeof *files);
        if (files == NULL)
            return OMENDB_NOMEM;
        checkpoint->files = files;
        checkpoint->file_capacity = capacity;
    }
    struct manifest_file *file = &checkpoint->files[checkpoint->file_count];
    *file = (struct manifest_file){number, 0, 0, STORAGE_SEGMENT};
    int code = segment_writer_finish(writer, &file->size, &file->footer_crc);
    if (code == OMENDB_OK)
        checkpoint->file_count++;
    return code;
}

static int checkpoint_write_own_file(struct checkpoint *checkpoint, struct checkpoint_item *item)
{
    omendb *db = checkpoint->db;
    struct segment_writer *writer = NULL;
    uint64_t number = checkpoint_next_file(db);
    int code = segment_writer_create(&db->storage, STORAGE_SEGMENT, number,
                                     checkpoint_memtable_bytes(item), &writer);
    if (code == OMENDB_OK)
        code = checkpoint_write_memtable(writer, item);
    item->file = (uint32_t)checkpoint->file_count;
    if (code == OMENDB_OK)
        code = checkpoint_finish_file(checkpoint, writer, number);
    segment_writer_destroy(writer);
    return code;
}

static int checkpoint_write_packed(struct checkpoint *checkpoint, struct checkpoint_item *item)
{
    omendb *db = checkpoint->db;
    int code = OMENDB_OK;
    if (checkpoint->pack == NULL) {
        checkpoint->pack_number = checkpoint_next_file(db);
        code = segment_writer_create(&db->storage, STORAGE_SEGMENT, checkpoint->pack_number, 0,
                                     &checkpoint->pack);
    }
    return code == OMENDB_OK ? checkpoint_write_memtable(checkpoint->pack, item) : code;
}

/* Large memtables first, each to its file; then the small ones to a pack, whose index is the last.
 */
static int checkpoint_write_items(struct checkpoint *checkpoint)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < checkpoint->item_count && code == OMENDB_OK; i++) {
        struct checkpoint_item *item = &checkpoint->items[i];
        item->file = UINT32_MAX;
        if (checkpoint->links && work_is_searched(item->collection))
            checkpoint_link(checkpoint, item);
        code = checkpoint_seal(checkpoint->db, item->memtable);
        if (code == OMENDB_OK && checkpoint_is_alive(checkpoint, item->memtable) &&
            checkpoint_memtable_bytes(item) >= CHECKPOINT_PACK_BYTES)
            code = checkpoint_write_own_file(checkpoint, item);
    }
    uint32_t pack_index = (uint32_t)checkpoint->file_count;
    for (size_t i = 0; i < checkpoint->item_count && code == OMENDB_OK; i++) {
        struct checkpoint_item *item = &checkpoint->items[i];
        if (item->file != UINT32_MAX || !checkpoint_is_alive(checkpoint, item->memtable))
            continue;
        item->file = pack_index;
        code = checkpoint_write_packed(checkpoint, item);
    }
    if (code == OMENDB_OK && checkpoint->pack != NULL)
        code = checkpoint_finish_file(checkpoint, checkpoint->pack, checkpoint->pack_number);
    return code;
}

static int checkpoint_copy_begins(omendb *db, const struct memtable *memtable,
                                  struct begin_array **begins)
{
    *begins = NULL;
    uint64_t newest = atomic_load(&memtable->newest_begin);
    if (txn_oldest(db) >= newest)
        return OMENDB_OK;
    uint32_t rows = atomic_load(&memtable->count);
    struct begin_array *copy = begin_array_create(&db->memory, rows);
    if (copy == NULL)
        return OMENDB_NOMEM;
    copy->newest = newest;
    for (uint32_t row = 0; row < rows; row++)
        copy->begin[row] = memtable_begin(memtable, row);
    *begins = copy;
    return OMENDB_OK;
}

static int checkpoint_open_segments(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    int code = OMENDB_OK;
    if (checkpoint->file_count == 0)
        return OMENDB_OK;
    checkpoint->opened =
        memory_zalloc(&db->memory, checkpoint->file_capacity * sizeof *checkpoint->opened);
    if (checkpoint->opened == NULL)
        return OMENDB_NOMEM;
    for (size_t i = 0; i < checkpoint->file_count && code == OMENDB_OK; i++)
        code = shared_file_open(db, &checkpoint->files[i], &checkpoint->opened[i]);
    for (size_t i = 0; i < checkpoint->item_count && code == OMENDB_OK; i++) {
        struct checkpoint_item *item = &checkpoint->items[i];
        struct begin_array *begins;
        if (item->file == UINT32_MAX)
            continue;
        code = checkpoint_copy_begins(db, item->memtable, &begins);
        if (code != OMENDB_OK)
            break;
        struct tombstones *tombstones = tombstones_reference(item->memtable->tombstones);
        code = segment_open(db, item->collection, checkpoint->opened[item->file], item->part,
                            tombstones, begins, &item->segment);
        if (code != OMENDB_OK) {
            tombstones_release(tombstones);
            begin_array_release(begins);
        }
    }
    return code;
}

/* ------------------------------------------------------------------ overlay */

/* Overlays that were replaced for most of their segments stay for the others. Where they come to
 * four times what one with everything takes, that one is written; so what is written for that is at
 * most a third of what was written before. */
static int checkpoint_overlays_sprawl(const struct checkpoint *checkpoint)
{
    const omendb *db = checkpoint->db;
    uint64_t files = 0, needed = 0;
    for (uint32_t i = 0; i < db->published.file_count; i++) {
        if (db->published.files[i].kind == STORAGE_OVERLAY)
            files += db->published.files[i].size;
    }
    if (files <= CHECKPOINT_OVERLAYS_MIN)
        return 0;
    for (size_t i = 0; i < checkpoint->manifest.collection_count; i++) {
        if (checkpoint->collections[i] == NULL)
            continue;
        struct version *version = version_acquire(checkpoint->collections[i]);
        for (uint32_t s = 0; s < version->segment_count; s++) {
            uint64_t dead = atomic_load(&version->segments[s]->tombstones->dead);
            needed += dead == 0 ? 0 : dead * sizeof(uint32_t) + CHECKPOINT_OVERLAY_PART;
        }
        version_release(version);
    }
    return files / 4 > needed;
}

static int checkpoint_mark(struct checkpoint *checkpoint, struct segment *segment)
{
    int sprawls = checkpoint->overlays_sprawl && segment->overlay_file != 0;
    if (atomic_load(&segment->tombstones->newest) <= segment->overlay_commit && !sprawls)
        return OMENDB_OK;
    if (checkpoint->marked_count == checkpoint->marked_capacity) {
        size_t capacity = checkpoint->marked_capacity * 2 + 8;
        struct segment **marked =
            memory_resize(&checkpoint->db->memory, checkpoint->marked,
                          checkpoint->marked_capacity * sizeof *marked, capacity * sizeof *marked);
        if (marked == NULL)
            return OMENDB_NOMEM;
        checkpoint->marked = marked;
        checkpoint->marked_capacity = capacity;
    }
    checkpoint->marked[checkpoint->marked_count++] = segment;
    return OMENDB_OK;
}

struct checkpoint_overlay {
    struct segment_writer *writer;
    uint64_t commit;
    uint32_t rows;
    int code;
};

static int checkpoint_write_tombstone(void *context, uint32_t row, uint64_t end)
{
    struct checkpoint_overlay *overlay = context;
    if (end > overlay->commit)
        return 0;
    overlay->rows++;
    overlay->code = segment_writer_append(overlay->writer, &row, sizeof row);
    return overlay->code;
}

static int checkpoint_write_overlay_part(struct segment_writer *writer,
                                         const struct segment *segment, uint64_t commit)
{
    struct part_info info = {0};
    struct checkpoint_overlay overlay = {writer, commit, 0, OMENDB_OK};
    int code = segment_writer_begin_part(writer);
    if (code == OMENDB_OK)
        code = segment_writer_begin_section(writer, SECTION_TOMBSTONES);
    if (code == OMENDB_OK)
        code = tombstones_each(segment->tombstones, segment->info.rows, checkpoint_write_tombstone,
                               &overlay);
    info.collection = segment->info.collection;
    info.target_file = segment->file->entry.number;
    info.target_part = segment->part;
    info.rows = overlay.rows;
    if (code == OMENDB_OK)
        code = segment_writer_end_part(writer, &info);
    return code;
}

/* All marked segments to one file; part i is marked[i]. */
static int checkpoint_write_overlay(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    struct segment_writer *writer = NULL;
    if (checkpoint->marked_count == 0)
        return OMENDB_OK;
    uint64_t number = checkpoint_next_file(db);
    int code = segment_writer_create(&db->storage, STORAGE_OVERLAY, number, 0, &writer);
    for (size_t i = 0; i < checkpoint->marked_count && code == OMENDB_OK; i++)
        code = checkpoint_write_overlay_part(writer, checkpoint->marked[i], checkpoint->commit);
    checkpoint->overlay = (struct manifest_file){number, 0, 0, STORAGE_OVERLAY};
    if (code == OMENDB_OK)
        code = segment_writer_finish(writer, &checkpoint->overlay.size,
                                     &checkpoint->overlay.footer_crc);
    segment_writer_destroy(writer);
    return code;
}

/* ------------------------------------------------------------------ manifest */

static int checkpoint_add_file(omendb *db, struct manifest *manifest,
                               const struct manifest_file *file, uint32_t *capacity)
{
    for (uint32_t i = manifest->file_count; i-- > 0;) {
        if (manifest->files[i].number == file->number)
            return OMENDB_OK;
    }
    if (manifest->file_count == *capacity) {
        uint32_t larger = *capacity * 2 + 8;
        struct manifest_file *files = memory_array(&db->memory, larger, sizeof *files);
        if (files == NULL)
            return OMENDB_NOMEM;
        if (manifest->file_count != 0)
            memcpy(files, manifest->files, manifest->file_count * sizeof *files);
        memory_free(&db->memory, manifest->files, *capacity * sizeof *files);
        manifest->files = files;
        *capacity = larger;
    }
    manifest->files[manifest->file_count++] = *file;
    return OMENDB_OK;
}

static const struct manifest_file *checkpoint_find_file(const struct manifest *manifest,
                                                        uint64_t number)
{
    for (uint32_t i = 0; i < manifest->file_count; i++) {
        if (manifest->files[i].number == number)
            return &manifest->files[i];
    }
    return NULL;
}

/* The entry of one segment, with the new overlay where it has a part in it. */
static int checkpoint_enter_segment(struct checkpoint *checkpoint, const struct segment *segment,
                                    struct manifest_segment *entry, uint32_t *file_capacity)
{
    omendb *db = checkpoint->db;
    *entry = (struct manifest_segment){segment->file->entry.number, segment->part,
                                       segment->overlay_part, segment->overlay_file};
    const struct manifest_file *overlay =
        segment->overlay_file == 0 ? NULL
                                   : checkpoint_find_file(&db->published, segment->overlay_file);
    for (size_t i = 0; i < checkpoint->marked_count; i++) {
        if (checkpoint->marked[i] != segment)
            continue;
        entry->overlay_file = checkpoint->overlay.number;
        entry->overlay_part = (uint32_t)i;
        overlay = &checkpoint->overlay;
    }
    int code = checkpoint_add_file(db, &checkpoint->manifest, &segment->file->entry, file_capacity);
    if (code == OMENDB_OK && overlay != NULL)
        code = checkpoint_add_file(db, &checkpoint->manifest, overlay, file_capacity);
    return code;
}

static uint32_t checkpoint_new_segments(const struct checkpoint *checkpoint,
                                        const struct collection *collection)
{
    uint32_t count = 0;
    for (size_t i = 0; i < checkpoint->item_count; i++)
        count +=
            checkpoint->items[i].collection == collection && checkpoint->items[i].segment != NULL;
    return count;
}

static int checkpoint_enter_calibration(omendb *db, const struct calibration *calibration,
                                        struct manifest_collection *entry)
{
    if (calibration == NULL)
        return OMENDB_OK;
    entry->calibration = memory_alloc(&db->memory, sizeof *entry->calibration);
    if (entry->calibration == NULL)
        return OMENDB_NOMEM;
    *entry->calibration = *calibration;
    entry->calibration->older = NULL;
    return OMENDB_OK;
}

static int checkpoint_enter_collection(struct checkpoint *checkpoint, size_t index,
                                       uint32_t *file_capacity)
{
    omendb *db = checkpoint->db;
    struct collection *collection = checkpoint->collections[index];
    struct manifest_collection *entry = &checkpoint->manifest.collections[index];
    struct version *version = version_acquire(collection);
    uint32_t count = version->segment_count + checkpoint_new_segments(checkpoint, collection);
    /* Replaced only under maintenance_mutex, which the caller holds, as are segments. */
    int code = checkpoint_enter_calibration(db, atomic_load(&collection->calibration), entry);
    if (count != 0)
        entry->segments = memory_array(&db->memory, count, sizeof *entry->segments);
    if (count != 0 && entry->segments == NULL)
        code = OMENDB_NOMEM;
    else
        entry->segment_count = count;
    uint32_t at = 0;
    for (uint32_t i = 0; i < version->segment_count && code == OMENDB_OK; i++)
        code = checkpoint_enter_segment(checkpoint, version->segments[i], &entry->segments[at++],
                                        file_capacity);
    for (size_t i = 0; i < checkpoint->item_count && code == OMENDB_OK; i++) {
        const struct checkpoint_item *item = &checkpoint->items[i];
        if (item->collection == collection && item->segment != NULL)
            code = checkpoint_enter_segment(checkpoint, item->segment, &entry->segments[at++],
                                            file_capacity);
    }
    version_release(version);
    return code;
}

/* manifest_destroy frees exactly file_count entries, so the list is cut to that; passes an earlier
 * error on. */
static int checkpoint_trim_files(struct checkpoint *checkpoint, uint32_t file_capacity, int code)
{
    omendb *db = checkpoint->db;
    struct manifest *manifest = &checkpoint->manifest;
    if (manifest->files == NULL)
        return code;
    struct manifest_file *exact = memory_array(&db->memory, manifest->file_count, sizeof *exact);
    if (exact != NULL)
        memcpy(exact, manifest->files, manifest->file_count * sizeof *exact);
    else
        manifest->file_count = 0;
    memory_free(&db->memory, manifest->files, file_capacity * sizeof *exact);
    manifest->files = exact;
    return exact == NULL ? OMENDB_NOMEM : code;
}

static int checkpoint_fill_manifest(struct checkpoint *checkpoint)
{
    uint32_t file_capacity = 0;
    int code = OMENDB_OK;
    for (size_t i = 0; i < checkpoint->manifest.collection_count && code == OMENDB_OK; i++)
        code = checkpoint_enter_collection(checkpoint, i, &file_capacity);
    return checkpoint_trim_files(checkpoint, file_capacity, code);
}

/* The former manifest: its files stay until it is known that no reader of another process holds it.
 */
static void checkpoint_retain(omendb *db, uint64_t number)
{
    if (number == 0)
        return;
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        if (db->retained[i] == 0) {
            db->retained[i] = number;
            return;
        }
    }
    db->retained_overflow = 1;
}

/* Makes the manifest on disk and keeps it as the published one. */
static int checkpoint_publish(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    struct manifest *manifest = &checkpoint->manifest;
    manifest->commit = checkpoint->commit;
    manifest->database = db->database_id;
    manifest->number = checkpoint_next_file(db);
    manifest->next_file = atomic_load(&db->next_file);
    int code = checkpoint_confirm(db);
    if (code != OMENDB_OK)
        return code;
    /* It syncs the directory before CURRENT is renamed, which covers the files that it names. */
    code = manifest_write(&db->storage, manifest);
    /* Which manifest a crash would find, and whether the entries of its files are on the device, is
     * not known any more. */
    if (code == OMENDB_IOERR || code == OMENDB_POISONED)
        return commit_poison(db, code);
    if (code != OMENDB_OK)
        return code;
    checkpoint_retain(db, db->published.number);
    manifest_destroy(&db->memory, &db->published);
    db->published = *manifest;
    db->prepared_end = checkpoint->prepared_end;
    memset(manifest, 0, sizeof *manifest);
    /* Outputs of merges whose own publishing failed need no protection any more. */
    for (size_t i = 0; i < DATABASE_UNPUBLISHED; i++) {
        if (checkpoint_find_file(&db->published, db->unpublished[i]) != NULL)
            db->unpublished[i] = 0;
    }
    atomic_store(&db->checkpoint_commit, checkpoint->commit);
    platform_mutex_lock(&db->commit_mutex);
    if (db->wal != NULL && db->wal->number == db->published.wal_number)
        db->log_published = 1;
    platform_mutex_unlock(&db->commit_mutex);
    for (size_t i = 0; i < checkpoint->marked_count; i++) {
        checkpoint->marked[i]->overlay_file = checkpoint->overlay.number;
        checkpoint->marked[i]->overlay_part = (uint32_t)i;
        checkpoint->marked[i]->overlay_commit = checkpoint->commit;
    }
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ freezing */

static int checkpoint_add_item(struct checkpoint *checkpoint, struct collection *collection,
                               struct memtable *memtable)
{
    if (checkpoint->item_count == checkpoint->item_capacity) {
        size_t capacity = checkpoint->item_capacity * 2 + 8;
        struct checkpoint_item *items =
            memory_resize(&checkpoint->db->memory, checkpoint->items,
                          checkpoint->item_capacity * sizeof *items, capacity * sizeof *items);
        if (items == NULL)
            return OMENDB_NOMEM;
        checkpoint->items = items;
        checkpoint->item_capacity = capacity;
    }
    checkpoint->items[checkpoint->item_count++] = (struct checkpoint_item){
        collection_reference(collection), memtable_reference(memtable), UINT32_MAX, 0, NULL};
    return OMENDB_OK;
}

/* Copies the catalog as it is at S. commit_mutex. */
static int checkpoint_list_collections(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    struct manifest *manifest = &checkpoint->manifest;
    size_t count = db->catalog.count;
    manifest->next_collection = db->next_collection;
    if (count == 0)
        return OMENDB_OK;
    checkpoint->collections = memory_array(&db->memory, count, sizeof *checkpoint->collections);
    checkpoint->versions = memory_zalloc(&db->memory, count * sizeof *checkpoint->versions);
    manifest->collections =
        memory_zalloc(&db->memory, memory_multiply(count, sizeof *manifest->collections));
    checkpoint->collection_capacity = count;
    if (manifest->collections != NULL)
        manifest->collection_count = (uint32_t)count;
    if (checkpoint->collections == NULL || checkpoint->versions == NULL ||
        manifest->collections == NULL) {
        memory_free(&db->memory, checkpoint->collections, count * sizeof *checkpoint->collections);
        checkpoint->collections = NULL;
        return OMENDB_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        struct collection *collection = db->catalog.items[i];
        struct manifest_collection *entry = &manifest->collections[i];
        checkpoint->collections[i] = collection_reference(collection);
        entry->id = collection->id;
        entry->next_id = atomic_load(&collection->next_id);
        memcpy(entry->name, collection->name, sizeof entry->name);
        entry->schema = collection->schema;
    }
    return OMENDB_OK;
}

static int checkpoint_list_memtables(struct checkpoint *checkpoint)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < checkpoint->manifest.collection_count && code == OMENDB_OK; i++) {
        const struct version *version = atomic_load(&checkpoint->collections[i]->version);
        for (uint32_t m = 0; m < version->memtable_count && code == OMENDB_OK; m++)
            code =
                checkpoint_add_item(checkpoint, checkpoint->collections[i], version->memtables[m]);
    }
    return code;
}

/* After a sync that failed, or files of which it is not known whether a crash brings them back. */
static int checkpoint_poison_if_unsure(omendb *db, int code)
{
    if (code == OMENDB_POISONED || (code != OMENDB_OK && atomic_load(&db->storage.sync_failed)))
        return commit_poison(db, code);
    return code;
}

/* Replaces the log; what was appended before is synced. Leader, commit_mutex. */
static int checkpoint_rotate_log(omendb *db)
{
    struct wal *next = NULL;
    int code = OMENDB_OK;
    /* One without commits, left by a checkpoint that failed later, serves again: it has the copies
     * that it needs, as a change to what is prepared would be a commit. */
    if (db->in_memory || (db->wal != NULL && db->wal->length == db->copied_end))
        return OMENDB_OK;
    if (db->wal != NULL && db->durable_commit < db->appended_commit) {
        code = wal_sync(db->wal);
        if (code != OMENDB_OK)
            return commit_poison(db, code);
        wal_set_durable(db->wal, db->wal->length);
    }
    next = memory_zalloc(&db->memory, sizeof *next);
    if (next == NULL)
        return OMENDB_NOMEM;
    uint64_t preallocate = db->wal_limit < (UINT64_C(4) << 20) ? db->wal_limit : UINT64_C(4) << 20;
    /* After recovery there is no log that this one follows: what was replayed is not known to be
     * durable, so nothing may depend on it. */
    code = wal_create(&db->storage, checkpoint_next_file(db), db->appended_commit + 1,
                      db->wal == NULL ? 0 : db->wal->number, db->wal == NULL ? 0 : db->wal->length,
                      preallocate, 1, next);
    if (code != OMENDB_OK) {
        memory_free(&db->memory, next, sizeof *next);
        /* Before the present log grows: after a crash the new one might come back and end it. */
        return checkpoint_poison_if_unsure(db, code);
    }
    struct wal *last = db->wal;
    /* One that follows none is reached only once a manifest names it. */
    if (db->wal == NULL)
        db->log_published = 0;
    db->wal = next;
    db->copied_commit = db->appended_commit;
    if (last != NULL) {
        wal_close(last);
        memory_free(&db->memory, last, sizeof *last);
    }
    return OMENDB_OK;
}

static int checkpoint_freeze_locked(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    int code = checkpoint_list_collections(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_list_memtables(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_rotate_log(db);
    if (code != OMENDB_OK)
        return code;
    checkpoint->commit = db->wal == NULL ? db->appended_commit : db->copied_commit;
    /* The manifest lets go of the logs that told of these. */
    if (db->wal != NULL) {
        code = prepared_copy_to_log(db, db->wal, db->appended_commit - checkpoint->commit,
                                    &db->appended_commit);
        db->copied_end = db->wal->length;
    }
    checkpoint->prepared_end = db->appended_commit == checkpoint->commit ? 0 : db->copied_end;
    if (code != OMENDB_OK)
        return code;
    checkpoint->manifest.wal_number = db->wal == NULL ? 0 : db->wal->number;
    checkpoint->log_bytes = atomic_exchange(&db->log_bytes, 0);
    for (size_t i = 0; i < checkpoint->manifest.collection_count; i++)
        checkpoint->collections[i]->active = NULL;
    commit_publish(db, db->appended_commit);
    platform_mutex_lock(&db->sync_mutex);
    if (db->durable_commit < checkpoint->commit)
        db->durable_commit = checkpoint->commit;
    platform_mutex_unlock(&db->sync_mutex);
    return OMENDB_OK;
}

static int checkpoint_freeze(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    commit_lead(db);
    /* Most of the log is synced here, without the mutex; the rest is little. */
    int code = commit_sync_led(db);
    if (code == OMENDB_OK) {
        platform_mutex_lock(&db->commit_mutex);
        code = checkpoint_freeze_locked(checkpoint);
        platform_mutex_unlock(&db->commit_mutex);
    }
    if (code == OMENDB_OK)
        code = commit_sync_led(db); /* what was copied from the old log */
    commit_unlead(db);
    return code;
}

/* ------------------------------------------------------------------ installing */

static int checkpoint_is_frozen(const struct checkpoint *checkpoint,
                                const struct memtable *memtable)
{
    for (size_t i = 0; i < checkpoint->item_count; i++) {
        if (checkpoint->items[i].memtable == memtable)
            return 1;
    }
    return 0;
}

static int checkpoint_has_items(const struct checkpoint *checkpoint,
                                const struct collection *collection)
{
    for (size_t i = 0; i < checkpoint->item_count; i++) {
        if (checkpoint->items[i].collection == collection)
            return 1;
    }
    return 0;
}

/* Versions with room for what install will put there, and for the memtables that came since the
 * freeze. */
static int checkpoint_prepare_versions(struct checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->manifest.collection_count; i++) {
        struct collection *collection = checkpoint->collections[i];
        if (!checkpoint_has_items(checkpoint, collection))
            continue;
        struct version *version = version_acquire(collection);
        uint32_t segments =
            version->segment_count + checkpoint_new_segments(checkpoint, collection);
        version_release(version);
        checkpoint->versions[i] =
            version_create(&checkpoint->db->memory, COMMIT_MAX_MEMTABLES, segments);
        if (checkpoint->versions[i] == NULL)
            return OMENDB_NOMEM;
    }
    return OMENDB_OK;
}

static void checkpoint_install_collection(struct checkpoint *checkpoint, size_t index)
{
    struct collection *collection = checkpoint->collections[index];
    struct version *version = checkpoint->versions[index];
    const struct version *old = atomic_load(&collection->version);
    uint32_t at = 0;
    version->memtable_count = 0;
    for (uint32_t i = 0; i < old->memtable_count; i++) {
        assert(version->memtable_count <= COMMIT_MAX_MEMTABLES);
        if (!checkpoint_is_frozen(checkpoint, old->memtables[i]))
            version->memtables[version->memtable_count++] = memtable_reference(old->memtables[i]);
    }
    for (uint32_t i = 0; i < old->segment_count; i++)
        version->segments[at++] = segment_reference(old->segments[i]);
    for (size_t i = 0; i < checkpoint->item_count; i++) {
        struct checkpoint_item *item = &checkpoint->items[i];
        if (item->collection != collection || item->segment == NULL)
            continue;
        version->segments[at++] = item->segment;
        item->segment = NULL;
    }
    checkpoint->versions[index] = NULL;
    version_install(collection, version);
}

static void checkpoint_install(struct checkpoint *checkpoint, size_t collections)
{
    platform_mutex_lock(&checkpoint->db->commit_mutex);
    for (size_t i = 0; i < collections; i++) {
        if (checkpoint->versions[i] != NULL)
            checkpoint_install_collection(checkpoint, i);
    }
    platform_mutex_unlock(&checkpoint->db->commit_mutex);
    for (size_t i = 0; i < collections; i++)
        work_notice_merge(checkpoint->collections[i]);
}

/* ------------------------------------------------------------------ collecting files */

static int checkpoint_is_retained(const omendb *db, uint64_t number)
{
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        if (db->retained[i] == number)
            return 1;
    }
    return 0;
}

static int checkpoint_note_manifest(void *context, const char *name)
{
    omendb *db = context;
    enum storage_kind kind;
    uint64_t number;
    if (storage_parse_name(name, &kind, &number) && kind == STORAGE_MANIFEST &&
        number != db->published.number && !checkpoint_is_retained(db, number))
        checkpoint_retain(db, number);
    return 0;
}

/* After there was no place for one: perhaps there is now. */
static void checkpoint_find_manifests(omendb *db)
{
    db->retained_overflow = 0;
    if (db->storage.vfs->list(db->storage.vfs->context, db->storage.directory,
                              checkpoint_note_manifest, db) != OMENDB_OK)
        db->retained_overflow = 1;
}

OMENDB_INTERNAL void checkpoint_release_manifests(omendb *db)
{
    uint32_t left = 0;
    if (db->retained_overflow)
        checkpoint_find_manifests(db);
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        struct storage_file file = {0};
        char name[STORAGE_NAME_BYTES];
        if (db->retained[i] == 0)
            continue;
        storage_name(STORAGE_MANIFEST, db->retained[i], name);
        int code = storage_open(&db->storage, name, OMENDB_OPEN_READ | OMENDB_OPEN_WRITE, &file);
        if (code == OMENDB_OK) {
            code =
                db->storage.vfs->lock(db->storage.vfs->context, file.handle, OMENDB_LOCK_EXCLUSIVE);
            if (code == OMENDB_OK || code == OMENDB_UNSUPPORTED)
                storage_unlink(&db->storage, name);
            storage_close(&db->storage, &file);
        }
        /* Not being able to ask is no answer: a reader may hold it. */
        if (code == OMENDB_OK || code == OMENDB_UNSUPPORTED || code == OMENDB_NOTFOUND)
            db->retained[i] = 0;
        left += db->retained[i] != 0;
    }
    atomic_store(&db->retained_count, left + db->retained_overflow);
}

/* Whether the published manifest, or what this process is about to publish, leads to it. */
static int checkpoint_is_in_force(const omendb *db, enum storage_kind kind, uint64_t number)
{
    if (kind == STORAGE_WAL)
        return number >= db->published.wal_number;
    for (size_t i = 0; i < DATABASE_UNPUBLISHED; i++) {
        if (db->unpublished[i] == number)
            return 1;
    }
    return checkpoint_find_file(&db->published, number) != NULL;
}

OMENDB_INTERNAL enum checkpoint_need checkpoint_file_need(const omendb *db, enum storage_kind kind,
                                                          uint64_t number, uint64_t *manifest)
{
    *manifest = 0;
    if (checkpoint_is_in_force(db, kind, number))
        return CHECKPOINT_IN_FORCE;
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        /* A manifest names only files with smaller numbers than its own. */
        if (db->retained[i] > number)
            *manifest = db->retained[i];
    }
    return *manifest != 0 || db->retained_overflow ? CHECKPOINT_HELD : CHECKPOINT_SUPERFLUOUS;
}

struct checkpoint_held {
    omendb *db;
    size_t count, capacity;
    char (*names)[STORAGE_NAME_BYTES];
};

static int checkpoint_note_held(void *context, const char *name)
{
    struct checkpoint_held *held = context;
    enum storage_kind kind;
    uint64_t number, manifest;
    if (!storage_parse_name(name, &kind, &number) || kind == STORAGE_MANIFEST ||
        checkpoint_file_need(held->db, kind, number, &manifest) != CHECKPOINT_HELD)
        return OMENDB_OK;
    if (held->count == held->capacity) {
        size_t larger = held->capacity * 2 + 16;
        void *moved =
            memory_resize(&held->db->memory, held->names, held->capacity * sizeof *held->names,
                          memory_multiply(larger, sizeof *held->names));
        if (moved == NULL)
            return OMENDB_NOMEM;
        held->names = moved;
        held->capacity = larger;
    }
    memcpy(held->names[held->count++], name, strlen(name) + 1);
    return OMENDB_OK;
}

OMENDB_INTERNAL int checkpoint_measure_held(omendb *db, uint64_t *bytes)
{
    struct storage *storage = &db->storage;
    struct checkpoint_held held = {.db = db};
    *bytes = 0;
    if (atomic_load(&db->retained_count) == 0)
        return OMENDB_OK;
    int code =
        storage->vfs->list(storage->vfs->context, storage->directory, checkpoint_note_held, &held);
    if (code != OMENDB_OK && code != OMENDB_NOMEM)
        error_set(code, "the directory of the database cannot be listed");
    for (size_t i = 0; i < held.count && code == OMENDB_OK; i++) {
        struct storage_file file = {0};
        uint64_t size = 0;
        code = storage_open(storage, held.names[i], OMENDB_OPEN_READ, &file);
        if (code == OMENDB_OK)
            code = storage_size(storage, &file, &size);
        storage_close(storage, &file);
        *bytes += size;
    }
    memory_free(&db->memory, held.names, held.capacity * sizeof *held.names);
    return code;
}

static int checkpoint_is_needed(const omendb *db, enum storage_kind kind, uint64_t number)
{
    uint64_t manifest;
    if (kind == STORAGE_MANIFEST)
        return number == db->published.number || checkpoint_is_retained(db, number);
    /* Those are for purge.c, which overwrites them first. */
    return db->purging ||
           checkpoint_file_need(db, kind, number, &manifest) != CHECKPOINT_SUPERFLUOUS;
}

#define CHECKPOINT_DOOMED 32

struct checkpoint_doomed {
    omendb *db;
    size_t count;
    char names[CHECKPOINT_DOOMED][STORAGE_NAME_BYTES];
};

static int checkpoint_doom(void *context, const char *name)
{
    struct checkpoint_doomed *doomed = context;
    enum storage_kind kind;
    uint64_t number;
    if (!storage_parse_name(name, &kind, &number) || checkpoint_is_needed(doomed->db, kind, number))
        return 0;
    memcpy(doomed->names[doomed->count++], name, strlen(name) + 1);
    return doomed->count == CHECKPOINT_DOOMED;
}

/* 1: it is gone. What a purge had to leave, as it was read, is overwritten before, under
 * maintenance_mutex: the next checkpoint, statistics and purge wait for it. That is so but once
 * after a purge that was BUSY, for files that it did not keep from being rewritten; letting go of
 * the mutex would mean to ask anew for each file whether a reader has come to need it. */
static int checkpoint_remove(omendb *db, const char *name)
{
    enum storage_kind kind;
    uint64_t number;
    if (storage_parse_name(name, &kind, &number) && kind != STORAGE_MANIFEST &&
        number < db->overwrite_below &&
        (shared_file_is_open(db, number) || storage_overwrite(&db->storage, name) != OMENDB_OK))
        return 0;
    return storage_unlink(&db->storage, name) == OMENDB_OK;
}

OMENDB_INTERNAL void checkpoint_collect(omendb *db)
{
    struct checkpoint_doomed doomed;
    doomed.db = db;
    checkpoint_release_manifests(db);
    if (db->retained_overflow)
        return;
    do {
        doomed.count = 0;
        db->storage.vfs->list(db->storage.vfs->context, db->storage.directory, checkpoint_doom,
                              &doomed);
        size_t unlinked = 0;
        for (size_t i = 0; i < doomed.count; i++)
            unlinked += (size_t)checkpoint_remove(db, doomed.names[i]);
        if (unlinked < doomed.count)
            break; /* what cannot be unlinked now is tried again after the next checkpoint */
    } while (doomed.count == CHECKPOINT_DOOMED);
}

/* ------------------------------------------------------------------ the whole */

static void checkpoint_destroy(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    size_t count = checkpoint->collection_capacity;
    segment_writer_destroy(checkpoint->pack);
    for (size_t i = 0; i < checkpoint->item_count; i++) {
        segment_release(checkpoint->items[i].segment);
        memtable_release(checkpoint->items[i].memtable);
        collection_release(checkpoint->items[i].collection);
    }
    for (size_t i = 0; checkpoint->opened != NULL && i < checkpoint->file_count; i++)
        shared_file_release(checkpoint->opened[i]);
    for (size_t i = 0; checkpoint->collections != NULL && i < count; i++) {
        version_release(checkpoint->versions[i]);
        collection_release(checkpoint->collections[i]);
    }
    memory_free(&db->memory, checkpoint->opened,
                checkpoint->file_capacity * sizeof *checkpoint->opened);
    memory_free(&db->memory, checkpoint->items,
                checkpoint->item_capacity * sizeof *checkpoint->items);
    memory_free(&db->memory, checkpoint->files,
                checkpoint->file_capacity * sizeof *checkpoint->files);
    memory_free(&db->memory, checkpoint->marked,
                checkpoint->marked_capacity * sizeof *checkpoint->marked);
    memory_free(&db->memory, checkpoint->collections, count * sizeof *checkpoint->collections);
    memory_free(&db->memory, checkpoint->versions, count * sizeof *checkpoint->versions);
    manifest_destroy(&db->memory, &checkpoint->manifest);
}

static int checkpoint_mark_all(struct checkpoint *checkpoint)
{
    int code = OMENDB_OK;
    checkpoint->overlays_sprawl = checkpoint_overlays_sprawl(checkpoint);
    for (size_t i = 0; i < checkpoint->manifest.collection_count && code == OMENDB_OK; i++) {
        struct version *version = version_acquire(checkpoint->collections[i]);
        for (uint32_t s = 0; s < version->segment_count && code == OMENDB_OK; s++)
            code = checkpoint_mark(checkpoint, version->segments[s]);
        version_release(version);
    }
    for (size_t i = 0; i < checkpoint->item_count && code == OMENDB_OK; i++) {
        if (checkpoint->items[i].segment != NULL)
            code = checkpoint_mark(checkpoint, checkpoint->items[i].segment);
    }
    return code;
}

/* From the list of collections to the published manifest. */
static int checkpoint_write_and_publish(struct checkpoint *checkpoint)
{
    int code = checkpoint_write_items(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_open_segments(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_mark_all(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_write_overlay(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_fill_manifest(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_prepare_versions(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_publish(checkpoint);
    return code;
}

/* The old manifest stays in force; files that were finished go, so that trying again does not fill
 * the disk. */
static int checkpoint_give_up(struct checkpoint *checkpoint, int code)
{
    omendb *db = checkpoint->db;
    char text[ERROR_TEXT_BYTES];
    atomic_fetch_add(&db->log_bytes, checkpoint->log_bytes);
    checkpoint_poison_if_unsure(db, code);
    if (atomic_load(&db->poisoned))
        return code;
    memcpy(text, error_text(), strlen(error_text()) + 1);
    checkpoint_collect(db);
    return error_adopt(code, text);
}

/* maintenance_mutex. */
static int checkpoint_locked(omendb *db, int links)
{
    struct checkpoint checkpoint = {.db = db, .links = links};
    int code = checkpoint_confirm(db);
    if (code != OMENDB_OK)
        return code;
    code = checkpoint_freeze(&checkpoint);
    size_t collections = checkpoint.manifest.collection_count;
    if (code == OMENDB_OK) {
        code = checkpoint_write_and_publish(&checkpoint);
        if (code != OMENDB_OK)
            code = checkpoint_give_up(&checkpoint, code);
    }
    if (code == OMENDB_OK) {
        checkpoint_install(&checkpoint, collections);
        atomic_fetch_add(&db->checkpoints, 1);
        checkpoint_collect(db);
    }
    checkpoint_destroy(&checkpoint);
    return code;
}

OMENDB_INTERNAL int checkpoint_run(omendb *db, int force)
{
    int code = commit_check_writable(db);
    if (code != OMENDB_OK)
        return code;
    platform_mutex_lock(&db->maintenance_mutex);
    platform_mutex_lock(&db->commit_mutex);
    int wanted = force ? db->appended_commit > atomic_load(&db->checkpoint_commit) ||
                             (!db->log_published && !db->in_memory) || db->published.number == 0
                       : atomic_load(&db->log_bytes) >= db->wal_limit;
    platform_mutex_unlock(&db->commit_mutex);
    if (wanted) {
        code = checkpoint_locked(db, !force);
        atomic_store(&db->checkpoint_failed, (uint32_t)code);
    }
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

/* The catalog of the published manifest, whose collections may have been dropped, or joined by
 * others, since. */
static int checkpoint_list_published(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    struct manifest *manifest = &checkpoint->manifest;
    const struct manifest *published = &db->published;
    size_t count = published->collection_count;
    manifest->next_collection = published->next_collection;
    manifest->wal_number = published->wal_number;
    checkpoint->commit = published->commit;
    checkpoint->prepared_end = db->prepared_end;
    if (count == 0)
        return OMENDB_OK;
    checkpoint->collections = memory_zalloc(&db->memory, count * sizeof *checkpoint->collections);
    checkpoint->versions = memory_zalloc(&db->memory, count * sizeof *checkpoint->versions);
    manifest->collections =
        memory_zalloc(&db->memory, memory_multiply(count, sizeof *manifest->collections));
    checkpoint->collection_capacity = count;
    if (checkpoint->collections == NULL || checkpoint->versions == NULL ||
        manifest->collections == NULL) {
        memory_free(&db->memory, checkpoint->collections, count * sizeof *checkpoint->collections);
        memory_free(&db->memory, manifest->collections, count * sizeof *manifest->collections);
        checkpoint->collections = NULL;
        manifest->collections = NULL;
        return OMENDB_NOMEM;
    }
    memcpy(manifest->collections, published->collections, count * sizeof *manifest->collections);
    manifest->collection_count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        manifest->collections[i].segments = NULL;
        manifest->collections[i].segment_count = 0;
        manifest->collections[i].calibration = NULL;
    }
    return OMENDB_OK;
}

/* A collection that was dropped since keeps the segments and the curve that it had: the drop may be
 * undone by a crash under the weaker sync modes. */
static int checkpoint_keep_dropped(struct checkpoint *checkpoint, size_t index,
                                   uint32_t *file_capacity)
{
    omendb *db = checkpoint->db;
    const struct manifest_collection *from = &db->published.collections[index];
    struct manifest_collection *to = &checkpoint->manifest.collections[index];
    int code = checkpoint_enter_calibration(db, from->calibration, to);
    if (code != OMENDB_OK || from->segment_count == 0)
        return code;
    to->segments = memory_array(&db->memory, from->segment_count, sizeof *to->segments);
    if (to->segments == NULL)
        return OMENDB_NOMEM;
    memcpy(to->segments, from->segments, from->segment_count * sizeof *to->segments);
    to->segment_count = from->segment_count;
    for (uint32_t i = 0; i < from->segment_count && code == OMENDB_OK; i++) {
        const struct manifest_file *file =
            checkpoint_find_file(&db->published, from->segments[i].file);
        const struct manifest_file *overlay =
            checkpoint_find_file(&db->published, from->segments[i].overlay_file);
        code = file == NULL ? OMENDB_OK
                            : checkpoint_add_file(db, &checkpoint->manifest, file, file_capacity);
        if (code == OMENDB_OK && overlay != NULL)
            code = checkpoint_add_file(db, &checkpoint->manifest, overlay, file_capacity);
    }
    return code;
}

OMENDB_INTERNAL int checkpoint_republish(omendb *db)
{
    struct checkpoint checkpoint = {.db = db};
    uint32_t file_capacity = 0;
    int code = checkpoint_list_published(&checkpoint);
    platform_mutex_lock(&db->commit_mutex);
    for (size_t i = 0; i < checkpoint.manifest.collection_count; i++) {
        struct collection *collection =
            catalog_by_id(&db->catalog, checkpoint.manifest.collections[i].id);
        checkpoint.collections[i] = collection == NULL ? NULL : collection_reference(collection);
    }
    platform_mutex_unlock(&db->commit_mutex);
    checkpoint.overlays_sprawl = code == OMENDB_OK && checkpoint_overlays_sprawl(&checkpoint);
    for (size_t i = 0; i < checkpoint.manifest.collection_count && code == OMENDB_OK; i++) {
        if (checkpoint.collections[i] == NULL)
            continue;
        struct version *version = version_acquire(checkpoint.collections[i]);
        for (uint32_t s = 0; s < version->segment_count && code == OMENDB_OK; s++)
            code = checkpoint_mark(&checkpoint, version->segments[s]);
        version_release(version);
    }
    if (code == OMENDB_OK)
        code = checkpoint_write_overlay(&checkpoint);
    for (size_t i = 0; i < checkpoint.manifest.collection_count && code == OMENDB_OK; i++) {
        code = checkpoint.collections[i] == NULL
                   ? checkpoint_keep_dropped(&checkpoint, i, &file_capacity)
                   : checkpoint_enter_collection(&checkpoint, i, &file_capacity);
    }
    code = checkpoint_trim_files(&checkpoint, file_capacity, code);
    if (code == OMENDB_OK)
        code = checkpoint_publish(&checkpoint);
    checkpoint_destroy(&checkpoint);
    if (code == OMENDB_OK)
        checkpoint_collect(db);
    return checkpoint_poison_if_unsure(db, code);
}

#undef CHECKPOINT_PACK_BYTES
#undef CHECKPOINT_CODED
#undef CHECKPOINT_CODES
#undef CHECKPOINT_OVERLAYS_MIN
#undef CHECKPOINT_LINK_BYTES
#undef CHECKPOINT_LINK_ROWS
#undef CHECKPOINT_OVERLAY_PART
#undef CHECKPOINT_DOOMED
