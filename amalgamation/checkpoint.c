/* checkpoint.c: from memory and log to segments and manifest.
 *
 * 1. Freeze. As leader of syncing and under commit_mutex: sync the rest of the log, begin a new
 * one, take the commit number S, and let every memtable stop growing. Nothing else waits: later
 * commits go to new memtables and the new log.
 * 2. Write. Frozen memtables become parts of segment files (those under 4 MiB share one pack);
 * tombstones with an end <= S, and the documents that updated rows have at S, become an overlay. A
 * checkpoint that nobody waits for links the rest
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
 * Overlay: a part for each segment with tombstones or updated rows: a section of ascending u32 rows
 * that ended, and those of documents (overlay.c). A part is written whole, whatever changed in it;
 * the overlays in memory that it replaces go with the versions that hold them. */
#include "database.h"

#include <assert.h>
#include <string.h>

#define CHECKPOINT_PACK_BYTES (UINT64_C(4) << 20)
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
    struct overlay *overlay;     /* of the memtable as it was frozen, referenced, or NULL */
    uint64_t written;            /* the rows are written with the documents of this commit */
    struct overlay_marks *marks; /* of the segment's rows; the next three once it is open */
    struct overlay *rest;        /* what `overlay` has after that commit, or NULL */
    struct overlay *into;        /* of no layers: for the segment */
};

/* A segment of which a part of the overlay is written anew. */
struct checkpoint_marked {
    struct segment *segment; /* referenced by a version or an item */
    struct overlay *from;    /* its updated rows, referenced, or NULL */
    uint64_t written;        /* what is at or before it is in the segment */
    struct overlay_base *base;
    struct overlay *into; /* of no layers: takes the place of `from`; NULL: of an item, or none */
};

struct checkpoint {
    omendb *db;
    uint64_t commit;
    struct manifest manifest;
    struct manifest former;          /* collections of the published one, to be published again */
    struct collection **collections; /* referenced; parallel to manifest.collections */
    size_t collection_capacity;
    struct checkpoint_item *items; /* in the order of collections */
    size_t item_count, item_capacity;
    size_t *first_items; /* parallel to collections: the first of each; the next one's is its end */
    struct manifest_file *files; /* written by this checkpoint */
    size_t file_count, file_capacity;
    struct shared_file **opened;
    struct segment_writer *pack;
    uint64_t pack_number;
    /* Overlay */
    struct checkpoint_marked *marked;
    size_t marked_count, marked_capacity;
    struct manifest_file overlay;     /* number 0: none */
    struct shared_file *overlay_file; /* it, if it has documents, or NULL */
    int overlays_sprawl;              /* all of them are written anew */
    struct version **versions;        /* parallel to collections: to be installed, or NULL */
    int links;                        /* nobody waits for it */
    uint64_t log_bytes;               /* of the logs that it makes superfluous */
    uint64_t prepared_end;            /* for omendb.prepared_end */
    size_t prepared_unlogged;         /* for omendb.prepared_unlogged */
};

/* ------------------------------------------------------------------ one memtable */

static int checkpoint_read_document(void *context, uint32_t row, const uint8_t **document)
{
    const struct checkpoint_item *item = context;
    return memtable_document_at(item->memtable, item->overlay, row, item->written, document);
}

static int checkpoint_write_memtable(struct segment_writer *writer, struct checkpoint_item *item)
{
    struct memtable *memtable = item->memtable;
    const struct part_documents documents = {checkpoint_read_document, item};
    struct graph_view view;
    struct part_info info;
    graph_get_view(memtable->graph, &view);
    struct rows_view vectors = memtable_vectors(memtable);
    part_describe(item->collection, &info);
    info.rows = atomic_load(&memtable->count);
    part_describe_graph(&view, memtable_graph_rows(memtable), &info);
    uint64_t *ids = memory_array(memtable->memory, info.rows, sizeof *ids);
    if (ids == NULL)
        return OMENDB_NOMEM;
    for (uint32_t row = 0; row < info.rows; row++)
        ids[row] = memtable_id(memtable, row);
    int code = segment_writer_begin_part(writer);
    if (code == OMENDB_OK)
        code = part_write_rows(writer, SECTION_VECTORS, &vectors, info.rows);
    if (code == OMENDB_OK)
        code = part_write_links(writer, &view, &info);
    if (code == OMENDB_OK)
        code = part_write_codes(writer, item->collection, &vectors, &info);
    if (code == OMENDB_OK)
        code = part_write_ids(writer, memtable->memory, ids, info.rows, &info);
    if (code == OMENDB_OK)
        code =
            part_write_documents(writer, memtable->memory, &memtable->seed, &documents, info.rows);
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
    return memtable_document_bytes(item->memtable) +
           rows * (item->collection->vector_bytes +
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

/* No transaction that is open or to come, nor a replay from S on, reads before this commit. */
static uint64_t checkpoint_seen_by_all(const struct checkpoint *checkpoint)
{
    uint64_t oldest = txn_oldest(checkpoint->db);
    return oldest < checkpoint->commit ? oldest : checkpoint->commit;
}

/* Whether any of them can see a row of it. */
static int checkpoint_is_alive(const struct checkpoint *checkpoint, const struct memtable *memtable)
{
    struct checkpoint_alive alive = {checkpoint_seen_by_all(checkpoint), 0};
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
    if (code == OMENDB_OK) {
        *number = db->unpublished[i] = checkpoint_next_file(db);
        db->entrusted[i] = 0;
    }
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

OMENDB_INTERNAL void checkpoint_entrust(omendb *db, uint64_t number)
{
    for (size_t i = 0; i < DATABASE_UNPUBLISHED; i++) {
        if (db->unpublished[i] == number)
            db->entrusted[i] = 1;
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
        item->written = checkpoint_seen_by_all(checkpoint);
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

/* What the segment takes over of the memtable's overlay; memory for what may come until then. */
static int checkpoint_open_overlay(struct memory *memory, struct checkpoint_item *item)
{
    const uint32_t recents = item->overlay == NULL ? 0 : item->overlay->recent_count;
    item->segment->documents_commit = item->written;
    item->marks = overlay_marks_create(memory, item->segment->info.rows);
    item->into = overlay_create(memory, recents + 1);
    item->rest = recents == 0 ? NULL : overlay_create(memory, recents);
    if (item->marks == NULL || item->into == NULL || (recents != 0 && item->rest == NULL))
        return OMENDB_NOMEM;
    if (item->rest != NULL) {
        overlay_settle(item->rest, item->overlay, item->marks, NULL, NULL, item->written);
        overlay_mark_recents(item->rest, item->written);
    }
    if (item->rest != NULL && overlay_is_empty(item->rest)) {
        overlay_release(item->rest);
        item->rest = NULL;
    }
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
        } else {
            code = checkpoint_open_overlay(&db->memory, item);
        }
    }
    return code;
}

/* ------------------------------------------------------------------ overlay */

static uint64_t checkpoint_part_bytes(uint64_t dead, uint64_t documents)
{
    return dead == 0 && documents == 0
               ? 0
               : dead * sizeof(uint32_t) + documents + CHECKPOINT_OVERLAY_PART;
}

/* What an overlay with all ended and updated rows of the collection would take. */
static uint64_t checkpoint_overlay_bytes(struct collection *collection)
{
    uint64_t bytes = 0;
    platform_mutex_lock(&collection->db->commit_mutex);
    const struct rest *rest = collection->rest;
    const struct version *version = atomic_load(&collection->version);
    for (uint32_t i = 0; rest != NULL && i < rest->segment_count; i++) {
        const struct rest_segment *segment = &rest->segments[i];
        bytes +=
            checkpoint_part_bytes(segment->dead, segment->documents == NULL
                                                     ? 0
                                                     : space_overlay_bytes(segment->documents->file,
                                                                           segment->overlay_part));
    }
    for (uint32_t i = 0; i < version->segment_count; i++) {
        bytes += checkpoint_part_bytes(atomic_load(&version->segments[i]->tombstones->dead),
                                       overlay_bytes(version->segment_overlays[i]));
    }
    platform_mutex_unlock(&collection->db->commit_mutex);
    return bytes;
}

/* Overlays that were replaced for most of their segments stay for the others. Where they come to
 * four times what one with everything takes, that one is written; so what is written for that is at
 * most a third of what was written before. */
static int checkpoint_overlays_sprawl(const struct checkpoint *checkpoint)
{
    const omendb *db = checkpoint->db;
    size_t count = checkpoint->manifest.collection_count;
    uint64_t files = 0, needed = 0;
    for (uint32_t i = 0; i < db->published.file_count; i++) {
        if (db->published.files[i].kind == STORAGE_OVERLAY)
            files += db->published.files[i].size;
    }
    if (files == 0 || (files <= CHECKPOINT_OVERLAYS_MIN && !db->purging))
        return 0;
    for (size_t i = 0; i < count; i++) {
        if (checkpoint->collections[i] != NULL)
            needed += checkpoint_overlay_bytes(checkpoint->collections[i]);
    }
    if (files / 4 <= needed && !db->purging)
        return 0;
    /* They are written from memory; what there is none for is left to the next checkpoint. */
    for (size_t i = 0; i < count; i++) {
        if (checkpoint->collections[i] != NULL && rest_end(checkpoint->collections[i]) != OMENDB_OK)
            break;
    }
    return 1;
}

/* Whether something ended or was updated after `written` and after what the overlay has. */
static int checkpoint_is_dirty(const struct checkpoint *checkpoint, const struct segment *segment,
                               const struct overlay *overlay, uint64_t written)
{
    const uint64_t after = segment->overlay_commit;
    return after < checkpoint->commit &&
           (atomic_load(&segment->tombstones->newest) > after ||
            overlay_newest(overlay) > (after > written ? after : written));
}

/* written: the commit as of which the segment has the documents of its rows; 0: without `overlay`
 * nothing is known to have been updated. */
static int checkpoint_mark(struct checkpoint *checkpoint, struct segment *segment,
                           struct overlay *overlay, uint64_t written)
{
    int sprawls = checkpoint->overlays_sprawl && segment->overlay_file != 0;
    if (!checkpoint_is_dirty(checkpoint, segment, overlay, written) && !sprawls)
        return OMENDB_OK;
    if (checkpoint->marked_count == checkpoint->marked_capacity) {
        size_t capacity = checkpoint->marked_capacity * 2 + 8;
        struct checkpoint_marked *marked =
            memory_resize(&checkpoint->db->memory, checkpoint->marked,
                          checkpoint->marked_capacity * sizeof *marked, capacity * sizeof *marked);
        if (marked == NULL)
            return OMENDB_NOMEM;
        checkpoint->marked = marked;
        checkpoint->marked_capacity = capacity;
    }
    segment->mark = (uint32_t)checkpoint->marked_count;
    checkpoint->marked[checkpoint->marked_count++] =
        (struct checkpoint_marked){segment, overlay_reference(overlay), written, NULL, NULL};
    return OMENDB_OK;
}

/* The segment's mark, or NULL. */
static struct checkpoint_marked *checkpoint_marked_of(const struct checkpoint *checkpoint,
                                                      const struct segment *segment)
{
    return segment->mark < checkpoint->marked_count &&
                   checkpoint->marked[segment->mark].segment == segment
               ? &checkpoint->marked[segment->mark]
               : NULL;
}

struct checkpoint_update {
    struct segment_writer *writer;
    uint64_t ended; /* rows that ended at or before this commit nobody sees */
    uint64_t bytes; /* of documents so far */
};

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

/* Calls `each` for the rows that were updated and have not ended, with their documents as of S. */
static int checkpoint_each_update(const struct checkpoint *checkpoint,
                                  const struct checkpoint_marked *marked,
                                  int (*each)(struct checkpoint_update *update, uint32_t row,
                                              const struct overlay_version *version),
                                  struct checkpoint_update *update)
{
    const struct tombstones *tombstones = marked->segment->tombstones;
    int code = OMENDB_OK;
    for (uint32_t row = overlay_next(marked->from, 0); row != UINT32_MAX && code == OMENDB_OK;
         row = overlay_next(marked->from, row + 1)) {
        struct overlay_version version;
        code = overlay_find(marked->from, row, checkpoint->commit, &version);
        if (code == OMENDB_OK && version.commit > marked->written &&
            tombstones_get(tombstones, row) - 1 >= update->ended)
            code = each(update, row, &version);
    }
    return code;
}

static int checkpoint_write_row(struct checkpoint_update *update, uint32_t row,
                                const struct overlay_version *version)
{
    (void)version;
    return segment_writer_append(update->writer, &row, sizeof row);
}

static int checkpoint_write_commit(struct checkpoint_update *update, uint32_t row,
                                   const struct overlay_version *version)
{
    (void)row;
    return segment_writer_append(update->writer, &version->commit, sizeof version->commit);
}

static int checkpoint_write_end(struct checkpoint_update *update, uint32_t row,
                                const struct overlay_version *version)
{
    (void)row;
    update->bytes += document_size(version->document);
    return segment_writer_append(update->writer, &update->bytes, sizeof update->bytes);
}

static int checkpoint_write_document(struct checkpoint_update *update, uint32_t row,
                                     const struct overlay_version *version)
{
    (void)row;
    return version->document == NULL ? OMENDB_OK
                                     : segment_writer_append(update->writer, version->document,
                                                             document_size(version->document));
}

/* The sections of documents, in as many passes. */
static int checkpoint_write_updates(struct checkpoint *checkpoint, struct segment_writer *writer,
                                    const struct checkpoint_marked *marked)
{
    const struct {
        enum section_type type;
        int (*each)(struct checkpoint_update *update, uint32_t row,
                    const struct overlay_version *version);
    } sections[] = {{SECTION_DOCUMENT_ENDS, checkpoint_write_end},
                    {SECTION_DOCUMENTS, checkpoint_write_document},
                    {SECTION_OVERLAY_ROWS, checkpoint_write_row},
                    {SECTION_OVERLAY_COMMITS, checkpoint_write_commit}};
    struct checkpoint_update update = {writer, checkpoint_seen_by_all(checkpoint), 0};
    int code = OMENDB_OK;
    for (size_t i = 0; marked->from != NULL && i < sizeof sections / sizeof sections[0]; i++) {
        if (code == OMENDB_OK)
            code = segment_writer_begin_section(writer, sections[i].type);
        if (code == OMENDB_OK)
            code = checkpoint_each_update(checkpoint, marked, sections[i].each, &update);
    }
    return code;
}

static int checkpoint_write_overlay_part(struct checkpoint *checkpoint,
                                         struct segment_writer *writer,
                                         const struct checkpoint_marked *marked)
{
    const struct segment *segment = marked->segment;
    const uint64_t commit = checkpoint->commit;
    struct part_info info = {0};
    struct checkpoint_overlay overlay = {writer, commit, 0, OMENDB_OK};
    int code = segment_writer_begin_part(writer);
    if (code == OMENDB_OK)
        code = segment_writer_begin_section(writer, SECTION_TOMBSTONES);
    if (code == OMENDB_OK)
        code = tombstones_each(segment->tombstones, segment->info.rows, checkpoint_write_tombstone,
                               &overlay);
    if (code == OMENDB_OK)
        code = checkpoint_write_updates(checkpoint, writer, marked);
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
        code = checkpoint_write_overlay_part(checkpoint, writer, &checkpoint->marked[i]);
    checkpoint->overlay = (struct manifest_file){number, 0, 0, STORAGE_OVERLAY};
    if (code == OMENDB_OK)
        code = segment_writer_finish(writer, &checkpoint->overlay.size,
                                     &checkpoint->overlay.footer_crc);
    segment_writer_destroy(writer);
    return code;
}

/* What takes the place of overlays in memory, as far as the new file has documents. */
static int checkpoint_open_overlays(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    int code = OMENDB_OK, some = 0;
    for (size_t i = 0; i < checkpoint->marked_count; i++)
        some |= checkpoint->marked[i].from != NULL;
    if (some)
        code = shared_file_open(db, &checkpoint->overlay, &checkpoint->overlay_file);
    for (size_t i = 0; i < checkpoint->marked_count && code == OMENDB_OK; i++) {
        struct checkpoint_marked *marked = &checkpoint->marked[i];
        if (marked->from == NULL)
            continue;
        marked->into = overlay_create(&db->memory, marked->from->recent_count + 1);
        if (marked->into == NULL)
            code = OMENDB_NOMEM;
        else if (segment_section(checkpoint->overlay_file->file, (uint32_t)i, SECTION_OVERLAY_ROWS)
                     .length != 0)
            code = overlay_base_open(&db->memory, checkpoint->overlay_file, (uint32_t)i,
                                     checkpoint->commit, marked->segment->info.rows, NULL,
                                     &marked->base);
    }
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

/* Lists the files of an entry. overlay: NULL for none. */
static int checkpoint_enter_files(struct checkpoint *checkpoint, const struct shared_file *file,
                                  const struct manifest_file *overlay, uint32_t *file_capacity)
{
    omendb *db = checkpoint->db;
    int code = checkpoint_add_file(db, &checkpoint->manifest, &file->entry, file_capacity);
    return code == OMENDB_OK && overlay != NULL
               ? checkpoint_add_file(db, &checkpoint->manifest, overlay, file_capacity)
               : code;
}

/* commit_mutex. */
static int checkpoint_enter_resting(struct checkpoint *checkpoint, const struct rest *rest,
                                    struct manifest_collection *entry, uint32_t *file_capacity)
{
    omendb *db = checkpoint->db;
    int code = OMENDB_OK;
    entry->segments = memory_array(&db->memory, rest->segment_count, sizeof *entry->segments);
    if (entry->segments == NULL)
        return OMENDB_NOMEM;
    entry->segment_count = rest->segment_count;
    for (uint32_t i = 0; i < rest->segment_count && code == OMENDB_OK; i++) {
        const struct rest_segment *segment = &rest->segments[i];
        entry->segments[i] =
            (struct manifest_segment){segment->file->entry.number, segment->part,
                                      segment->overlay_part, segment->overlay_file};
        code = checkpoint_enter_files(
            checkpoint, segment->file,
            segment->overlay_file == 0 ? NULL
                                       : manifest_find_file(&db->published, segment->overlay_file),
            file_capacity);
    }
    return code;
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
                                   : manifest_find_file(&db->published, segment->overlay_file);
    if (checkpoint_marked_of(checkpoint, segment) != NULL) {
        entry->overlay_file = checkpoint->overlay.number;
        entry->overlay_part = segment->mark;
        overlay = &checkpoint->overlay;
    }
    return checkpoint_enter_files(checkpoint, segment->file, overlay, file_capacity);
}

/* The items of one collection: those from the returned one to before *end. */
static size_t checkpoint_items_of(const struct checkpoint *checkpoint, size_t index, size_t *end)
{
    int has = checkpoint->first_items != NULL;
    *end = has ? checkpoint->first_items[index + 1] : 0;
    return has ? checkpoint->first_items[index] : 0;
}

static uint32_t checkpoint_new_segments(const struct checkpoint *checkpoint, size_t index)
{
    uint32_t count = 0;
    size_t end;
    for (size_t i = checkpoint_items_of(checkpoint, index, &end); i < end; i++)
        count += checkpoint->items[i].segment != NULL;
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
    /* Replaced only under maintenance_mutex, which the caller holds, as are segments. */
    int code = checkpoint_enter_calibration(db, atomic_load(&collection->calibration), entry);
    platform_mutex_lock(&db->commit_mutex);
    int rests = collection->rest != NULL;
    if (rests && code == OMENDB_OK)
        code = checkpoint_enter_resting(checkpoint, collection->rest, entry, file_capacity);
    platform_mutex_unlock(&db->commit_mutex);
    if (rests)
        return code;
    struct version *version = version_acquire(collection);
    uint32_t count = version->segment_count + checkpoint_new_segments(checkpoint, index);
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
    size_t end, item_at = checkpoint_items_of(checkpoint, index, &end);
    for (; item_at < end && code == OMENDB_OK; item_at++) {
        const struct checkpoint_item *item = &checkpoint->items[item_at];
        if (item->segment != NULL)
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

/* Makes the manifest on disk and keeps it as the published one. */
static int checkpoint_publish(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    struct manifest *manifest = &checkpoint->manifest;
    manifest->commit = checkpoint->commit;
    manifest->database = db->database_id;
    manifest->number = checkpoint_next_file(db);
    manifest->next_file = atomic_load(&db->next_file);
    int code = commit_check_writable(db);
    if (code == OMENDB_OK)
        code = checkpoint_confirm(db);
    if (code != OMENDB_OK)
        return code;
    /* It syncs the directory before CURRENT is renamed, which covers the files that it names. Where
     * it fails the old manifest stays in force, unless that cannot be told: then callers poison. */
    code = manifest_write(&db->storage, manifest);
    if (code != OMENDB_OK)
        return code;
    collect_retain(db, db->published.number);
    manifest_destroy(&db->memory, &db->published);
    db->published = *manifest;
    (void)manifest_pack(&db->memory, &db->published); /* without memory it stays as it is */
    db->prepared_end = checkpoint->prepared_end;
    db->prepared_unlogged = checkpoint->prepared_unlogged;
    memset(manifest, 0, sizeof *manifest);
    /* Outputs of merges whose own publishing failed need no protection any more: those that are not
     * named have left the versions meanwhile. */
    for (size_t i = 0; i < DATABASE_UNPUBLISHED; i++) {
        if (db->entrusted[i])
            db->unpublished[i] = 0;
    }
    atomic_store(&db->checkpoint_commit, checkpoint->commit);
    platform_mutex_lock(&db->commit_mutex);
    if (db->wal != NULL && db->wal->number == db->published.wal_number)
        db->log_published = 1;
    platform_mutex_unlock(&db->commit_mutex);
    for (size_t i = 0; i < checkpoint->marked_count; i++) {
        struct segment *segment = checkpoint->marked[i].segment;
        segment->overlay_file = checkpoint->overlay.number;
        segment->overlay_part = (uint32_t)i;
        segment->overlay_commit = checkpoint->commit;
    }
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ freezing */

static int checkpoint_add_item(struct checkpoint *checkpoint, struct collection *collection,
                               struct memtable *memtable, struct overlay *overlay)
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
    checkpoint->items[checkpoint->item_count++] =
        (struct checkpoint_item){.collection = collection_reference(collection),
                                 .memtable = memtable_reference(memtable),
                                 .file = UINT32_MAX,
                                 .overlay = overlay_reference(overlay)};
    return OMENDB_OK;
}

/* commit_mutex. */
static int checkpoint_enter_declaration(omendb *db, const struct collection *collection,
                                        struct manifest_collection *entry)
{
    size_t size;
    const uint8_t *declaration = fields_get(collection, &size);
    if (declaration == NULL)
        return OMENDB_OK;
    entry->declaration = memory_alloc(&db->memory, size);
    if (entry->declaration == NULL)
        return OMENDB_NOMEM;
    memcpy(entry->declaration, declaration, size);
    entry->declaration_bytes = (uint32_t)size;
    return OMENDB_OK;
}

/* Copies the catalog as it is at S. commit_mutex. */
static int checkpoint_list_collections(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    struct manifest *manifest = &checkpoint->manifest;
    size_t count = db->catalog.count;
    int code = OMENDB_OK;
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
        memcpy(entry->name, collection->name, strlen(collection->name) + 1);
        entry->schema = collection->schema;
        entry->document_bytes = collection->used_documents;
        quota_get(collection, &entry->limits);
        if (code == OMENDB_OK)
            code = checkpoint_enter_declaration(db, collection, entry);
    }
    return code;
}

static int checkpoint_list_memtables(struct checkpoint *checkpoint)
{
    int code = OMENDB_OK;
    size_t count = checkpoint->manifest.collection_count;
    if (count == 0)
        return OMENDB_OK;
    checkpoint->first_items =
        memory_array(&checkpoint->db->memory, count + 1, sizeof *checkpoint->first_items);
    if (checkpoint->first_items == NULL)
        return OMENDB_NOMEM;
    for (size_t i = 0; i < count && code == OMENDB_OK; i++) {
        const struct version *version = atomic_load(&checkpoint->collections[i]->version);
        checkpoint->first_items[i] = checkpoint->item_count;
        for (uint32_t m = 0; m < version->memtable_count && code == OMENDB_OK; m++)
            code = checkpoint_add_item(checkpoint, checkpoint->collections[i],
                                       version->memtables[m], version->memtable_overlays[m]);
    }
    checkpoint->first_items[count] = checkpoint->item_count;
    return code;
}

OMENDB_INTERNAL int checkpoint_poison_if_unsure(omendb *db, int code)
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

static void checkpoint_freeze_collection(struct collection *collection)
{
    const struct version *version = atomic_load(&collection->version);
    collection->active = NULL;
    for (uint32_t i = 0; i < version->memtable_count; i++)
        overlay_freeze(version->memtable_overlays[i]);
    for (uint32_t i = 0; i < version->segment_count; i++)
        overlay_freeze(version->segment_overlays[i]);
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
    checkpoint->prepared_unlogged = db->wal == NULL ? db->prepared.count : 0;
    if (code != OMENDB_OK)
        return code;
    checkpoint->manifest.wal_number = db->wal == NULL ? 0 : db->wal->number;
    checkpoint->log_bytes = atomic_exchange(&db->log_bytes, 0);
    for (size_t i = 0; i < checkpoint->manifest.collection_count; i++)
        checkpoint_freeze_collection(checkpoint->collections[i]);
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

static int checkpoint_is_frozen(const struct checkpoint *checkpoint, size_t index,
                                const struct memtable *memtable)
{
    size_t end;
    for (size_t i = checkpoint_items_of(checkpoint, index, &end); i < end; i++) {
        if (checkpoint->items[i].memtable == memtable)
            return 1;
    }
    return 0;
}

/* Versions with room for what install will put there, and for the memtables that came since the
 * freeze. */
static int checkpoint_prepare_versions(struct checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->manifest.collection_count; i++) {
        size_t end;
        if (checkpoint->collections[i] == NULL)
            continue;
        struct version *version = version_acquire(checkpoint->collections[i]);
        int changes = checkpoint_items_of(checkpoint, i, &end) != end;
        for (uint32_t s = 0; s < version->segment_count && !changes; s++) {
            const struct checkpoint_marked *marked =
                checkpoint_marked_of(checkpoint, version->segments[s]);
            changes = marked != NULL && marked->into != NULL;
        }
        uint32_t segments = version->segment_count + checkpoint_new_segments(checkpoint, i);
        version_release(version);
        if (!changes)
            continue;
        checkpoint->versions[i] =
            version_create(&checkpoint->db->memory, COMMIT_MAX_MEMTABLES, segments);
        if (checkpoint->versions[i] == NULL)
            return OMENDB_NOMEM;
    }
    return OMENDB_OK;
}

/* The overlay before this checkpoint, or one before that, which an open transaction may read. */
static struct overlay *checkpoint_older(const struct checkpoint *checkpoint, struct overlay *from)
{
    uint64_t end = checkpoint->commit;
    for (; from != NULL; from = from->older) {
        if (txn_reads_between(checkpoint->db, from->commit, end))
            break;
        end = from->commit;
    }
    return overlay_reference(from);
}

/* `into` with its layers, or NULL where there are none. commit_mutex. */
static struct overlay *checkpoint_fill_overlay(struct checkpoint *checkpoint,
                                               struct checkpoint_marked *marked,
                                               struct overlay *into, const struct overlay *now,
                                               struct overlay_marks *marks)
{
    struct overlay_base *base = marked == NULL ? NULL : marked->base;
    struct overlay *older = marked == NULL ? NULL : checkpoint_older(checkpoint, marked->from);
    if (marked != NULL)
        marked->base = NULL;
    overlay_settle(into, now, marks, base, older, checkpoint->commit);
    if (!overlay_is_empty(into))
        return into;
    overlay_release(into);
    return NULL;
}

/* A segment that was there before, with what is left of its overlay. commit_mutex. */
static void checkpoint_keep_segment(struct checkpoint *checkpoint, const struct version *old,
                                    uint32_t index, struct version *version, uint32_t at)
{
    struct overlay *now = old->segment_overlays[index];
    struct checkpoint_marked *marked = checkpoint_marked_of(checkpoint, old->segments[index]);
    version_put_segment(version, at, old->segments[index], NULL);
    if (marked == NULL || marked->into == NULL) {
        version->segment_overlays[at] = overlay_reference(now);
        return;
    }
    version->segment_overlays[at] =
        checkpoint_fill_overlay(checkpoint, marked, marked->into, now, now->marks);
    marked->into = NULL;
}

/* The segment that a memtable became. What was updated since the freeze is in the memtable's
 * overlay as it is now. commit_mutex. */
static void checkpoint_put_item(struct checkpoint *checkpoint, const struct version *old,
                                struct checkpoint_item *item, struct version *version, uint32_t at)
{
    struct checkpoint_marked *marked = checkpoint_marked_of(checkpoint, item->segment);
    const struct overlay *now = NULL;
    for (uint32_t i = 0; i < old->memtable_count; i++) {
        if (old->memtables[i] == item->memtable)
            now = old->memtable_overlays[i];
    }
    version->segments[at] = item->segment;
    struct overlay *overlay =
        checkpoint_fill_overlay(checkpoint, marked, item->into, now, item->marks);
    if (overlay != NULL)
        overlay_mark_recents(overlay, item->written);
    version->segment_overlays[at] = overlay;
    item->segment = NULL;
    item->into = NULL;
}

static void checkpoint_install_collection(struct checkpoint *checkpoint, size_t index)
{
    struct collection *collection = checkpoint->collections[index];
    struct version *version = checkpoint->versions[index];
    const struct version *old = atomic_load(&collection->version);
    uint32_t at = 0;
    version->memtable_count = 0;
    for (uint32_t i = 0; i < old->memtable_count; i++) {
        assert(version->memtable_count < COMMIT_MAX_MEMTABLES);
        if (!checkpoint_is_frozen(checkpoint, index, old->memtables[i]))
            version_put_memtable(version, version->memtable_count++, old->memtables[i],
                                 old->memtable_overlays[i]);
    }
    for (uint32_t i = 0; i < old->segment_count; i++)
        checkpoint_keep_segment(checkpoint, old, i, version, at++);
    size_t end, item_at = checkpoint_items_of(checkpoint, index, &end);
    for (; item_at < end; item_at++) {
        struct checkpoint_item *item = &checkpoint->items[item_at];
        if (item->segment == NULL)
            continue;
        checkpoint_put_item(checkpoint, old, item, version, at++);
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
}

/* ------------------------------------------------------------------ the whole */

static void checkpoint_destroy(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    size_t count = checkpoint->collection_capacity;
    segment_writer_destroy(checkpoint->pack);
    for (size_t i = 0; i < checkpoint->item_count; i++) {
        segment_release(checkpoint->items[i].segment);
        overlay_release(checkpoint->items[i].overlay);
        overlay_release(checkpoint->items[i].rest);
        overlay_release(checkpoint->items[i].into);
        overlay_marks_release(checkpoint->items[i].marks);
        memtable_release(checkpoint->items[i].memtable);
        collection_release(checkpoint->items[i].collection);
    }
    for (size_t i = 0; i < checkpoint->marked_count; i++) {
        overlay_release(checkpoint->marked[i].from);
        overlay_release(checkpoint->marked[i].into);
        overlay_base_release(checkpoint->marked[i].base);
    }
    shared_file_release(checkpoint->overlay_file);
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
    memory_free(&db->memory, checkpoint->first_items,
                (count + 1) * sizeof *checkpoint->first_items);
    manifest_destroy(&db->memory, &checkpoint->former);
    manifest_destroy(&db->memory, &checkpoint->manifest);
}

static int checkpoint_mark_all(struct checkpoint *checkpoint)
{
    int code = OMENDB_OK;
    checkpoint->overlays_sprawl = checkpoint_overlays_sprawl(checkpoint);
    for (size_t i = 0; i < checkpoint->manifest.collection_count && code == OMENDB_OK; i++) {
        struct version *version = version_acquire(checkpoint->collections[i]);
        for (uint32_t s = 0; s < version->segment_count && code == OMENDB_OK; s++)
            code =
                checkpoint_mark(checkpoint, version->segments[s], version->segment_overlays[s], 0);
        version_release(version);
    }
    for (size_t i = 0; i < checkpoint->item_count && code == OMENDB_OK; i++) {
        const struct checkpoint_item *item = &checkpoint->items[i];
        if (item->segment != NULL)
            code = checkpoint_mark(checkpoint, item->segment, item->rest, item->written);
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
        code = checkpoint_open_overlays(checkpoint);
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
    collect_files(db);
    return error_adopt(code, text);
}

/* maintenance_mutex. */
static int checkpoint_locked(omendb *db, int links)
{
    struct checkpoint checkpoint = {.db = db, .links = links};
    int code = checkpoint_confirm(db);
    if (code != OMENDB_OK)
        return code;
    code = checkpoint_poison_if_unsure(db, checkpoint_freeze(&checkpoint));
    size_t collections = checkpoint.manifest.collection_count;
    if (code == OMENDB_OK) {
        code = checkpoint_write_and_publish(&checkpoint);
        if (code != OMENDB_OK)
            code = checkpoint_give_up(&checkpoint, code);
    }
    if (code == OMENDB_OK) {
        checkpoint_install(&checkpoint, collections);
        for (size_t i = 0; i < collections; i++)
            work_notice_merge(checkpoint.collections[i]);
        atomic_fetch_add(&db->checkpoints, 1);
        collect_files(db);
    }
    checkpoint_destroy(&checkpoint);
    rest_idle(db);
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
    int code = manifest_pack(&db->memory, &db->published);
    if (code == OMENDB_OK)
        code = manifest_unpack(&db->memory, published, &checkpoint->former);
    if (code != OMENDB_OK)
        return code;
    manifest->next_collection = published->next_collection;
    manifest->wal_number = published->wal_number;
    checkpoint->commit = published->commit;
    checkpoint->prepared_end = db->prepared_end;
    checkpoint->prepared_unlogged = db->prepared_unlogged;
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
    memcpy(manifest->collections, checkpoint->former.collections,
           count * sizeof *manifest->collections);
    manifest->collection_count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        manifest->collections[i].segments = NULL;
        manifest->collections[i].segment_count = 0;
        manifest->collections[i].calibration = NULL;
        /* It goes over; limits and bytes of documents were copied: those of the commit. */
        checkpoint->former.collections[i].declaration = NULL;
        checkpoint->former.collections[i].declaration_bytes = 0;
    }
    return OMENDB_OK;
}

/* A collection that was dropped since keeps the segments and the curve that it had: the drop may be
 * undone by a crash under the weaker sync modes. */
static int checkpoint_keep_dropped(struct checkpoint *checkpoint, size_t index,
                                   uint32_t *file_capacity)
{
    omendb *db = checkpoint->db;
    const struct manifest_collection *from = &checkpoint->former.collections[index];
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
            manifest_find_file(&db->published, from->segments[i].file);
        const struct manifest_file *overlay =
            manifest_find_file(&db->published, from->segments[i].overlay_file);
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
            code =
                checkpoint_mark(&checkpoint, version->segments[s], version->segment_overlays[s], 0);
        version_release(version);
    }
    if (code == OMENDB_OK)
        code = checkpoint_write_overlay(&checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_open_overlays(&checkpoint);
    for (size_t i = 0; i < checkpoint.manifest.collection_count && code == OMENDB_OK; i++) {
        code = checkpoint.collections[i] == NULL
                   ? checkpoint_keep_dropped(&checkpoint, i, &file_capacity)
                   : checkpoint_enter_collection(&checkpoint, i, &file_capacity);
    }
    size_t collections = checkpoint.manifest.collection_count;
    code = checkpoint_trim_files(&checkpoint, file_capacity, code);
    if (code == OMENDB_OK)
        code = checkpoint_prepare_versions(&checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_publish(&checkpoint);
    if (code == OMENDB_OK)
        checkpoint_install(&checkpoint, collections);
    code = checkpoint_poison_if_unsure(db, code);
    checkpoint_destroy(&checkpoint);
    if (code == OMENDB_OK)
        collect_files(db);
    return code;
}

#undef CHECKPOINT_PACK_BYTES
#undef CHECKPOINT_OVERLAYS_MIN
#undef CHECKPOINT_LINK_BYTES
#undef CHECKPOINT_LINK_ROWS
#undef CHECKPOINT_OVERLAY_PART
