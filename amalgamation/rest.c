/* rest.c: collections that nobody uses. Of a database with ten thousand collections most are idle:
 * no handle, cursor, transaction, queue or merge knows them, only the catalog. Such a one, if it is
 * small and all that it holds is in the files of the published manifest, rests: its version is
 * empty, and in place of segments with their views and tombstones `rest` says where its rows are.
 * That takes a seventh of their memory. A handle, or a commit, ends the rest.
 *
 * Invariant: who has a reference from before never sees a collection go to rest, as resting begins
 * under commit_mutex with no reference but the catalog's (and the caller's), and new ones are taken
 * from the catalog under that mutex. So whoever takes one from the catalog, not from a handle,
 * looks at `rest` under commit_mutex, or ends it, and after that the version is all there is.
 *
 * Ended rows are kept as numbers. All of them wake as ended by the newest end: that is at or below
 * the oldest snapshot when the rest begins, so every snapshot that is open or to come sees them
 * ended, as before, and no transaction finds a conflict that was none.
 *
 * A rest is for memory only. Files stay open, their footers and the layout of the parts were
 * verified when the database was opened, and what is damaged is found when and where it was.
 *
 * Rejected: reading footers at the first use. Opening would be shorter by some milliseconds for ten
 * thousand collections, but would no longer tell which files are missing or damaged. */
#include "database.h"

#include <assert.h>

#define REST_SEGMENTS 8
#define REST_DEAD     128                 /* rows */
#define REST_BYTES    (UINT64_C(1) << 20) /* of vectors: what is larger is not there in numbers */

static size_t rest_bytes(uint32_t segments, uint32_t dead)
{
    return sizeof(struct rest) + segments * sizeof(struct rest_segment) + dead * sizeof(uint32_t);
}

static uint32_t *rest_dead_rows(struct rest *rest)
{
    return (uint32_t *)(void *)(rest->segments + rest->segment_count);
}

OMENDB_INTERNAL void rest_discard(struct collection *collection)
{
    struct rest *rest = collection->rest;
    if (rest == NULL)
        return;
    for (uint32_t i = 0; i < rest->segment_count; i++) {
        shared_file_release(rest->segments[i].file);
        shared_file_release(rest->segments[i].documents);
    }
    memory_free(&collection->db->memory, rest, rest_bytes(rest->segment_count, rest->dead));
    collection->rest = NULL;
}

/* ------------------------------------------------------------------ beginning */

/* Whether the segment can be found again as it is: of its documents all are in a file. */
static int rest_may_leave(const struct segment *segment, const struct overlay *overlay,
                          uint64_t oldest)
{
    uint64_t newest = atomic_load(&segment->tombstones->newest);
    if (overlay != NULL && (overlay->base == NULL || overlay->recent_count != 0 ||
                            overlay->commit > oldest || overlay->older != NULL))
        return 0;
    return atomic_load(&segment->hot) == NULL && newest <= segment->overlay_commit &&
           newest <= oldest && (segment->begins == NULL || segment->begins->newest <= oldest);
}

/* Whether the version can be left; *dead: ended rows in it. */
static int rest_is_possible(struct collection *collection, const struct version *version,
                            uint32_t *dead)
{
    uint64_t rows = 0, oldest = txn_oldest(collection->db);
    *dead = 0;
    if (atomic_load(&collection->dropped) || version->memtable_count != 0 ||
        version->segment_count == 0 || version->segment_count > REST_SEGMENTS)
        return 0;
    for (uint32_t i = 0; i < version->segment_count; i++) {
        const struct segment *segment = version->segments[i];
        if (!rest_may_leave(segment, version->segment_overlays[i], oldest))
            return 0;
        rows += segment->info.rows;
        *dead += atomic_load(&segment->tombstones->dead);
        if (*dead > REST_DEAD || rows * collection->vector_bytes > REST_BYTES)
            return 0;
    }
    return !compact_wanted(collection);
}

struct rest_list {
    uint32_t *rows;
    uint32_t count;
};

static int rest_note_row(void *context, uint32_t row, uint64_t end)
{
    struct rest_list *list = context;
    (void)end;
    list->rows[list->count++] = row;
    return 0;
}

static void rest_describe(const struct segment *segment, const struct overlay *overlay,
                          struct rest_list *dead, struct rest_segment *rest)
{
    uint32_t before = dead->count;
    tombstones_each(segment->tombstones, segment->info.rows, rest_note_row, dead);
    *rest = (struct rest_segment){
        .file = shared_file_reference(segment->file),
        .documents = overlay == NULL ? NULL : shared_file_reference(overlay->base->file),
        .overlay_file = segment->overlay_file,
        .overlay_commit = segment->overlay_commit,
        .newest_end = atomic_load(&segment->tombstones->newest),
        .not_stale_limit = atomic_load(&segment->not_stale_limit),
        .part = segment->part,
        .overlay_part = segment->overlay_part,
        .dead = dead->count - before,
        .codes_starved = segment->codes_starved,
        .curve_tried = segment->curve_tried};
}

/* A reference to the version of collections that rest; NULL: no memory. commit_mutex. */
static struct version *rest_empty_version(omendb *db)
{
    if (db->resting == NULL)
        db->resting = version_create(&db->memory, 0, 0);
    if (db->resting != NULL)
        atomic_fetch_add_explicit(&db->resting->references, 1, memory_order_relaxed);
    return db->resting;
}

/* Without memory the collection stays as it is. commit_mutex; the caller and the catalog have the
 * only references. */
static void rest_begin(struct collection *collection)
{
    struct memory *memory = &collection->db->memory;
    const struct version *version = atomic_load(&collection->version);
    uint32_t dead, count = version->segment_count;
    if (collection->rest != NULL || !rest_is_possible(collection, version, &dead))
        return;
    struct version *empty = rest_empty_version(collection->db);
    struct rest *rest = memory_alloc(memory, rest_bytes(count, dead));
    if (empty == NULL || rest == NULL) {
        version_release(empty);
        memory_free(memory, rest, rest_bytes(count, dead));
        return;
    }
    *rest = (struct rest){count, dead};
    struct rest_list list = {rest_dead_rows(rest), 0};
    for (uint32_t i = 0; i < count; i++)
        rest_describe(version->segments[i], version->segment_overlays[i], &list,
                      &rest->segments[i]);
    assert(list.count == dead);
    collection->rest = rest;
    version_install(collection, empty);
}

OMENDB_INTERNAL void rest_release(struct collection *collection)
{
    omendb *db = collection->db;
    /* With others it goes on: the last of them, or the next checkpoint, sees to it. */
    if (atomic_load(&collection->references) == 2) {
        platform_mutex_lock(&db->commit_mutex);
        if (atomic_load(&collection->references) == 2)
            rest_begin(collection);
        platform_mutex_unlock(&db->commit_mutex);
    }
    collection_release(collection);
}

#define REST_AT_ONCE 256 /* collections, before commits get their turn */

OMENDB_INTERNAL void rest_idle(omendb *db)
{
    size_t at = 0, count;
    do {
        platform_mutex_lock(&db->commit_mutex);
        count = db->catalog.count;
        for (size_t end = at + REST_AT_ONCE; at < end && at < count; at++) {
            if (atomic_load(&db->catalog.items[at]->references) == 1)
                rest_begin(db->catalog.items[at]);
        }
        platform_mutex_unlock(&db->commit_mutex);
    } while (at < count);
}

/* ------------------------------------------------------------------ ending */

static int rest_open_segment(struct collection *collection, const struct rest_segment *rest,
                             const uint32_t *dead, struct segment **segment,
                             struct overlay **overlay)
{
    int code =
        segment_open(collection->db, collection, rest->file, rest->part, NULL, NULL, segment);
    if (code != OMENDB_OK)
        return code;
    struct segment *made = *segment;
    for (uint32_t i = 0; i < rest->dead && code == OMENDB_OK; i++) {
        code = tombstones_prepare(made->tombstones, dead[i]);
        if (code == OMENDB_OK)
            tombstones_set(made->tombstones, dead[i], rest->newest_end);
    }
    made->overlay_file = rest->overlay_file;
    made->overlay_part = rest->overlay_part;
    made->overlay_commit = rest->overlay_commit;
    made->codes_starved = rest->codes_starved;
    made->curve_tried = rest->curve_tried;
    atomic_store(&made->not_stale_limit, rest->not_stale_limit);
    if (code == OMENDB_OK && rest->documents != NULL)
        code = overlay_open(&collection->db->memory, rest->documents, rest->overlay_part,
                            rest->overlay_commit, made->info.rows, overlay);
    return code;
}

OMENDB_INTERNAL int rest_end_locked(struct collection *collection)
{
    struct rest *rest = collection->rest;
    if (rest == NULL)
        return OMENDB_OK;
    memory_begin_reading();
    struct version *version = version_create(&collection->db->memory, 0, rest->segment_count);
    int code = version == NULL ? OMENDB_NOMEM : OMENDB_OK;
    const uint32_t *dead = rest_dead_rows(rest);
    for (uint32_t i = 0; i < rest->segment_count && code == OMENDB_OK; i++) {
        code = rest_open_segment(collection, &rest->segments[i], dead, &version->segments[i],
                                 &version->segment_overlays[i]);
        dead += rest->segments[i].dead;
    }
    memory_end_reading();
    if (code != OMENDB_OK) {
        version_release(version);
        return code;
    }
    version_install(collection, version);
    rest_discard(collection);
    return OMENDB_OK;
}

OMENDB_INTERNAL int rest_end(struct collection *collection)
{
    platform_mutex_lock(&collection->db->commit_mutex);
    int code = rest_end_locked(collection);
    platform_mutex_unlock(&collection->db->commit_mutex);
    return code;
}

/* ------------------------------------------------------------------ looking without ending it */

OMENDB_INTERNAL uint64_t rest_rows(const struct collection *collection)
{
    const struct rest *rest = collection->rest;
    uint64_t rows = 0;
    for (uint32_t i = 0; rest != NULL && i < rest->segment_count; i++)
        rows += rest->segments[i].file->file->parts[rest->segments[i].part].rows;
    return rows;
}

OMENDB_INTERNAL int rest_must_leave(const struct collection *collection)
{
    const struct rest *rest = collection->rest;
    int leave = 0;
    for (uint32_t i = 0; rest != NULL && i < rest->segment_count; i++)
        leave |= atomic_load(&rest->segments[i].file->leave) != 0;
    return leave;
}

#undef REST_SEGMENTS
#undef REST_DEAD
#undef REST_BYTES
#undef REST_AT_ONCE
