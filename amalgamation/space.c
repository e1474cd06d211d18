/* space.c: which bytes of the files are dead, and what is done about them.
 *
 * THE BOUND. In a database whose files (segments and overlays) are over 64 MiB, live rows with all
 * that belongs to them are at least half of these bytes, but for what open transactions, cursors
 * and readers of other processes pin. A quiet database gets there without any call; a busy one is
 * beyond it by what is deleted while a merge runs. Why it holds, with F the bytes of the files,
 * once there is nothing left to do:
 *
 * - Ended rows that can be dropped now are under a quarter of every segment: one with more is
 *   rewritten (compact_is_stale), so they are under F/4.
 * - Ended rows that only a checkpoint makes droppable, and collections dropped since the last one,
 *   are under F/10: with more there is a checkpoint, however short the log is. They are looked at
 *   when a segment has a quarter of ended rows, and again each time there are an eighth more: in
 *   segments with fewer, rows of both kinds together are under the quarter already counted; in the
 *   others they are under F/10 * 9/8.
 * - What is neither is under F/10: parts of packs whose collections moved elsewhere or were
 *   dropped, files that are small beside the 32 KiB that any file takes, and overlays. With more,
 *   packs that are half dead are left by all that lives in them, small files of small collections
 *   are gathered in packs, 64 at a time, and overlays are written anew once they are four times
 *   what is needed (checkpoint.c).
 *
 * The sum is under 0.47 F. It is looked at after each checkpoint and each merge, when the oldest
 * transaction ends that kept ended rows, when collections of F/80 were dropped, which adds so much,
 * and when a database is opened. Each look also lets go of overlays (overlay.h) that were kept for
 * transactions which have ended.
 *
 * The price: a rewritten segment has a quarter of ended rows at least, so a byte that comes back
 * costs at most three written; a pack that is left is half dead, so one; gathering writes less than
 * it frees. A checkpoint for space comes after a tenth of the files was deleted.
 *
 * Under 64 MiB the same holds with the log's length in place of F/10: there is no checkpoint but
 * those for the log, and half dead packs are found by counting their parts.
 *
 * Rejected: counting dead bytes as they come about. Each place where a row ends, a part moves or a
 * transaction ends would have to keep the count right; a look takes some 50 ns a segment and 2 ns a
 * row of pages with ended ones, and there are few looks. */
#include "database.h"

#ifndef SPACE_FLOOR
#define SPACE_FLOOR (UINT64_C(64) << 20)
#endif
#define SPACE_PART     10 /* of the files: one in so many may wait for a checkpoint, or be waste */
#define SPACE_FILE_MIN (UINT64_C(32) << 10) /* what a file takes beside its sections, nearly */
#define SPACE_STEPS    8                    /* between looks of drops, to that part */
#define SPACE_GATHERED 8                    /* small files that are worth a pack */

/* ------------------------------------------------------------------ collections */

OMENDB_INTERNAL int space_list_collections(omendb *db, struct space_list *list)
{
    *list = (struct space_list){NULL, 0, 0};
    for (;;) {
        platform_mutex_lock(&db->commit_mutex);
        size_t count = db->catalog.count;
        for (; list->capacity >= count && list->count < count; list->count++)
            list->items[list->count] = collection_reference(db->catalog.items[list->count]);
        platform_mutex_unlock(&db->commit_mutex);
        if (list->capacity >= count)
            return OMENDB_OK;
        memory_free(&db->memory, list->items, list->capacity * sizeof *list->items);
        list->capacity = 0;
        list->items = memory_array(&db->memory, count, sizeof *list->items);
        if (list->items == NULL)
            return OMENDB_NOMEM;
        list->capacity = count;
    }
}

OMENDB_INTERNAL void space_free_list(omendb *db, struct space_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        collection_release(list->items[i]);
    memory_free(&db->memory, list->items, list->capacity * sizeof *list->items);
    *list = (struct space_list){NULL, 0, 0};
}

/* ------------------------------------------------------------------ measuring */

/* Ended rows by what keeps them. */
struct space_ended {
    uint64_t limit, oldest, visible;
    uint64_t droppable, waiting, pinned;
};

static int space_count_row(void *context, uint32_t row, uint64_t end)
{
    struct space_ended *ended = context;
    (void)row;
    if (end <= ended->limit)
        ended->droppable++;
    else if (end <= ended->oldest)
        ended->waiting++;
    else
        ended->pinned += end <= ended->visible;
    return 0;
}

static uint64_t space_bytes(const struct segment_file *file, uint32_t part)
{
    uint64_t bytes = 0;
    for (int type = 1; type < SECTION_TYPES; type++)
        bytes += segment_section(file, part, (enum section_type)type).length;
    return bytes;
}

OMENDB_INTERNAL uint64_t space_overlay_bytes(const struct segment_file *file, uint32_t part)
{
    return space_bytes(file, part);
}

OMENDB_INTERNAL uint64_t space_part_bytes(const struct segment *segment)
{
    return space_bytes(segment->file->file, segment->part);
}

static uint64_t space_share(uint64_t bytes, uint64_t rows, uint32_t all)
{
    return rows == 0 ? 0 : (uint64_t)((double)bytes * (double)rows / (double)all);
}

/* `ended` has counted the rows. */
static void space_add_part(const struct segment_file *file, uint32_t part,
                           const struct space_ended *counted, struct space *space)
{
    struct space_ended ended = *counted;
    uint32_t rows = file->parts[part].rows;
    uint64_t bytes = space_bytes(file, part);
    uint64_t droppable = space_share(bytes, ended.droppable, rows),
             waiting = space_share(bytes, ended.waiting, rows),
             pinned = space_share(bytes, ended.pinned, rows);
    space->droppable += droppable;
    space->waiting += waiting;
    space->pinned += pinned;
    space->pinned_rows += ended.pinned;
    space->live += bytes - droppable - waiting - pinned;
}

static void space_add_segment(const struct segment *segment, const struct overlay *overlay,
                              struct space_ended ended, struct space *space)
{
    if (overlay != NULL && overlay->base != NULL)
        space->live += space_bytes(overlay->base->file->file, overlay->base->part);
    if (atomic_load(&segment->tombstones->dead) != 0)
        tombstones_each(segment->tombstones, segment->info.rows, space_count_row, &ended);
    space_add_part(segment->file->file, segment->part, &ended, space);
}

/* Notes that the part of the file is in use; returns the file's bytes the first time. */
static uint64_t space_use_file(struct shared_file *file, uint32_t part, uint64_t look,
                               uint64_t target)
{
    uint64_t first = file->look == look ? 0 : file->entry.size;
    if (file->look != look) {
        file->look = look;
        file->used_bytes = 0;
        file->used_parts = file->used_parts_of_target = 0;
    }
    file->used_bytes += space_bytes(file->file, part);
    file->used_parts++;
    file->used_parts_of_target += file->file->parts[part].collection == target;
    return first;
}

/* 1: the collection rests, and its segments were added; the bytes of their files to *used, as of
 * space_use_file. The caller has a reference. */
static int space_add_resting(struct collection *collection, uint64_t target,
                             const struct space_ended *none, struct space *space, uint64_t *used)
{
    omendb *db = collection->db;
    platform_mutex_lock(&db->commit_mutex);
    const struct rest *rest = collection->rest;
    int rests = rest != NULL;
    for (uint32_t i = 0; rest != NULL && i < rest->segment_count; i++) {
        const struct rest_segment *segment = &rest->segments[i];
        struct space_ended ended = *none;
        for (uint32_t row = 0; row < segment->dead; row++)
            space_count_row(&ended, row, segment->newest_end);
        space_add_part(segment->file->file, segment->part, &ended, space);
        if (segment->documents != NULL)
            space->live += space_bytes(segment->documents->file, segment->overlay_part);
        *used += space_use_file(segment->file, segment->part, db->space_looks, target);
    }
    platform_mutex_unlock(&db->commit_mutex);
    return rests;
}

static void space_add_memtable(const struct collection *collection, const struct memtable *memtable,
                               struct space_ended ended, struct space *space)
{
    if (atomic_load(&memtable->tombstones->dead) != 0)
        tombstones_each(memtable->tombstones, atomic_load(&memtable->count), space_count_row,
                        &ended);
    space->pinned_rows += ended.pinned;
    space->pinned_memory += ended.pinned * collection->vector_bytes;
}

OMENDB_INTERNAL void space_measure(omendb *db, const struct space_list *list, uint64_t target,
                                   struct space *space)
{
    struct space_ended ended = {.limit = compact_drop_limit(db), .oldest = txn_oldest(db)};
    uint64_t used = 0, segments = 0, look = ++db->space_looks;
    ended.visible = atomic_load(&db->visible_commit);
    *space = (struct space){0};
    for (size_t i = 0; i < list->count; i++) {
        if (space_add_resting(list->items[i], target, &ended, space, &used))
            continue;
        struct version *version = version_acquire(list->items[i]);
        for (uint32_t m = 0; m < version->memtable_count; m++)
            space_add_memtable(list->items[i], version->memtables[m], ended, space);
        for (uint32_t s = 0; s < version->segment_count; s++) {
            space_add_segment(version->segments[s], version->segment_overlays[s], ended, space);
            const struct segment *segment = version->segments[s];
            used += space_use_file(segment->file, segment->part, look, target);
        }
        version_release(version);
    }
    for (uint32_t i = 0; i < db->published.file_count; i++) {
        const struct manifest_file *file = &db->published.files[i];
        space->files += file->size;
        segments += file->kind == STORAGE_SEGMENT ? file->size : 0;
    }
    /* Files in which nothing lives are of collections that were dropped since the checkpoint. */
    space->waiting += segments > used ? segments - used : 0;
}

OMENDB_INTERNAL uint64_t space_collection_bytes(struct collection *collection)
{
    uint64_t bytes = 0;
    platform_mutex_lock(&collection->db->commit_mutex);
    const struct rest *rest = collection->rest;
    const struct version *version = atomic_load(&collection->version);
    for (uint32_t i = 0; rest != NULL && i < rest->segment_count; i++)
        bytes += space_bytes(rest->segments[i].file->file, rest->segments[i].part);
    for (uint32_t i = 0; i < version->segment_count; i++)
        bytes += space_part_bytes(version->segments[i]);
    platform_mutex_unlock(&collection->db->commit_mutex);
    return bytes;
}

/* ------------------------------------------------------------------ what is to be done */

/* Whether rewriting what lives in the file is sure to take less than half. */
static int space_is_half_dead(const struct shared_file *file)
{
    return file->file->part_count > file->used_parts &&
           file->entry.size > 2 * (file->used_bytes + SPACE_FILE_MIN);
}

/* Whether the file is small beside what any file takes, and shrinks in a pack: what merges write
 * for large collections goes to a file of its own. */
static int space_is_small(const struct collection *collection, const struct version *version,
                          const struct shared_file *file)
{
    uint64_t largest, rows = search_total_rows(version, &largest);
    return file->entry.size > 2 * file->used_bytes &&
           rows * collection->vector_bytes < COMPACT_SMALL_BYTES;
}

/* 1: the collection rests, and its files were looked at; all such collections are small. */
static int space_mark_resting(struct collection *collection, int gather, uint32_t *small)
{
    platform_mutex_lock(&collection->db->commit_mutex);
    const struct rest *rest = collection->rest;
    int rests = rest != NULL;
    for (uint32_t i = 0; rest != NULL && i < rest->segment_count; i++) {
        struct shared_file *file = rest->segments[i].file;
        int is_small = file->entry.size > 2 * file->used_bytes;
        *small += is_small != 0;
        if (space_is_half_dead(file) || (is_small && gather))
            atomic_store(&file->leave, 1);
    }
    platform_mutex_unlock(&collection->db->commit_mutex);
    return rests;
}

/* Marks the files that are to be left; returns the small ones, which are marked if `gather`. */
static uint32_t space_mark(const struct space_list *list, int gather)
{
    uint32_t small = 0;
    for (size_t i = 0; i < list->count; i++) {
        if (space_mark_resting(list->items[i], gather, &small))
            continue;
        struct version *version = version_acquire(list->items[i]);
        for (uint32_t s = 0; s < version->segment_count; s++) {
            struct shared_file *file = version->segments[s]->file;
            int is_small = space_is_small(list->items[i], version, file);
            small += is_small != 0;
            if (space_is_half_dead(file) || (is_small && gather))
                atomic_store(&file->leave, 1);
        }
        version_release(version);
    }
    return small;
}

/* Small files are gathered when there are some, and clearly fewer or more than the last time:
 * gathering that does not help is not repeated. */
static void space_sweep(omendb *db, const struct space_list *list)
{
    uint32_t small = space_mark(list, 0), before = db->space_swept;
    int gather = small >= SPACE_GATHERED && (small < before - before / 4 || small > 2 * before);
    if (gather)
        space_mark(list, 1);
    db->space_swept = gather || small < SPACE_GATHERED ? small : before;
}

/* What rests in a file that is to be left must wake to be merged; what cannot, for want of memory,
 * is found by the next look. */
static void space_wake_leaving(omendb *db, const struct space_list *list)
{
    platform_mutex_lock(&db->commit_mutex);
    for (size_t i = 0; i < list->count; i++) {
        if (rest_must_leave(list->items[i]) && rest_end_locked(list->items[i]) != OMENDB_OK)
            break;
    }
    platform_mutex_unlock(&db->commit_mutex);
}

/* Without memory they stay for now. 1: some do. maintenance_mutex. */
static int space_drop_overlays(struct collection *collection)
{
    omendb *db = collection->db;
    struct version *made = NULL;
    int stay = 0;
    platform_mutex_lock(&db->commit_mutex);
    const struct version *old = atomic_load(&collection->version);
    for (uint32_t i = 0; i < old->segment_count; i++) {
        const struct overlay *overlay = old->segment_overlays[i];
        if (overlay == NULL || overlay->older == NULL)
            continue;
        struct overlay *less = overlay_without_unread(db, overlay);
        if (less != NULL && made == NULL) {
            made = version_create(&db->memory, old->memtable_count, old->segment_count);
            if (made != NULL)
                version_put_all(made, old);
        }
        if (less != NULL && made != NULL) {
            overlay_release(made->segment_overlays[i]);
            made->segment_overlays[i] = overlay_reference(less);
        }
        stay |= made == NULL || made->segment_overlays[i]->older != NULL;
        overlay_release(less);
    }
    if (made != NULL)
        version_install(collection, made);
    platform_mutex_unlock(&db->commit_mutex);
    return stay;
}

OMENDB_INTERNAL int space_look(omendb *db, struct space_list *list, int *checkpoint, int *over)
{
    struct space space;
    int code = space_list_collections(db, list);
    if (code != OMENDB_OK)
        return code;
    platform_mutex_lock(&db->maintenance_mutex);
    uint64_t visible = atomic_load(&db->visible_commit);
    int pinned = 0;
    atomic_store(&db->dropped_bytes, 0);
    atomic_store(&db->space_pinned, visible);
    for (size_t i = 0; i < list->count; i++)
        pinned |= space_drop_overlays(list->items[i]);
    space_measure(db, list, 0, &space);
    atomic_store(&db->dropped_step, (space.files > SPACE_FLOOR ? space.files : SPACE_FLOOR) /
                                        (SPACE_PART * SPACE_STEPS));
    uint64_t dead = space.droppable + space.waiting, kept = space.live + space.pinned + dead;
    uint64_t waste = space.files > kept ? space.files - kept : 0;
    int large = space.files > SPACE_FLOOR;
    *checkpoint = large && space.waiting >= space.files / SPACE_PART &&
                  visible > atomic_load(&db->checkpoint_commit);
    *over = large && dead + waste >= space.files / 4;
    if (!pinned && space.pinned_rows == 0)
        atomic_store(&db->space_pinned, 0);
    if (large && waste >= space.files / SPACE_PART)
        space_sweep(db, list);
    space_wake_leaving(db, list);
    platform_mutex_unlock(&db->maintenance_mutex);
    return OMENDB_OK;
}

#undef SPACE_FLOOR
#undef SPACE_PART
#undef SPACE_FILE_MIN
#undef SPACE_STEPS
#undef SPACE_GATHERED
