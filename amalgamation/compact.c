/* compact.c: merging segments.
 *
 * Policy. Sort the segments of a collection by rows. Find the first one that is at most four times
 * as large as all smaller ones together: it and they become one. So each remaining one is more than
 * four times as large as the sum of what follows, which leaves at most log5(n) segments, never over
 * eight, and a row is written at most some five times a level. Otherwise a segment alone is
 * rewritten when a quarter of its rows can be dropped, when an eighth of them was updated (or their
 * new documents take a quarter of its bytes), when rows are not in its graph yet, when its pack is
 * half dead or to be left, or when there was no memory for its codes. So an update costs at most
 * that eight rows are written once more, by and by; filters are answered by columns for seven rows
 * in eight; and what a checkpoint writes of updates is an eighth of the documents at most. That,
 * with what space.c adds, bounds the dead bytes; the argument is there. omendb_optimize also
 * rewrites one that could have a curve of recall and has none. While a collection is searched and
 * next to nothing is added, sixteen takes the place of four: each segment that a search has to walk
 * costs it nearly as much as the largest.
 *
 * A merge keeps the graph of the input with the most linked rows, drops from it what no transaction
 * can see, relinks around the gaps, and inserts all other rows. It is accepted unless its sampled
 * recall is clearly worse than before or than at the last fresh build. Else, and where half of the
 * rows are new, the graph is built in bulk, by omendb_optimize also where keeping it would leave
 * the output without a curve. omendb_optimize refines a kept graph in the end. Some of the new rows
 * come last, so that they can be asked as queries before (calibrate.c).
 *
 * What may be dropped: rows whose end is visible to every open transaction and lies at or before
 * the published checkpoint. A later delete may still be undone by a crash under the weaker sync
 * modes, so its row stays until the next checkpoint.
 *
 * A merge that is refused memory, be it for codes or for building in bulk, begins anew once, with
 * what copies for speed (hot.c) held.
 *
 * Rows are written with the documents that they had at that limit; newer ones go on in the overlay
 * of the output.
 *
 * Small outputs (under 4 MiB) of one run share a file. Installing holds commit_mutex for the replay
 * of tombstones and updates that came meanwhile. */
#include "database.h"
#include "format.h"

#include <math.h>
#include <string.h>

#define COMPACT_MAX_SEGMENTS 8
#define COMPACT_GROWTH       4
#define COMPACT_GROWTH_QUIET 16
#define COMPACT_QUIET_PART                                                                         \
    64 /* what was added since makes no difference up to one row in so many */
#define COMPACT_BEHIND        2 /* times tail_limit: so much without a graph goes first */
#define COMPACT_MAX_INPUTS    64
#define COMPACT_SLICE         4096 /* rows between looks at `progress` and `stopping` */
#define COMPACT_GRAIN         16   /* rows a parallel step */
#define COMPACT_MAX_STARVED   4
#define COMPACT_COPIED        (UINT32_C(4) << 20) /* bytes of vectors copied between releases */
#define COMPACT_GATE_MIN_ROWS 1000
#define COMPACT_GATE_QUERIES  400
#define COMPACT_GATE_K        10
#define COMPACT_GATE_RELEASE  8 /* queries between releases of the vectors that they read */
#define COMPACT_GATE_LOSS     0.005
#define COMPACT_GATE_ERRORS   2.0 /* standard errors beyond that: what the sample says for sure */
#define COMPACT_UPDATED       8   /* one row in so many was updated: it is rewritten */
#define COMPACT_CURVE_GROWTH  5   /* a curve is measured anew once one row in so many is new */

struct compact_merge {
    struct collection *collection; /* the caller's reference */
    struct version *version;       /* referenced: keeps the inputs */
    struct segment *inputs[COMPACT_MAX_INPUTS];
    const struct overlay *overlays[COMPACT_MAX_INPUTS]; /* of the inputs, in that version */
    uint32_t *maps[COMPACT_MAX_INPUTS];                 /* old row to new, GRAPH_NO_ROW: dropped */
    uint32_t input_count;
    uint32_t base;      /* input whose graph is kept; input_count: none */
    uint32_t base_rows; /* its kept linked rows, the first of the output */
    uint32_t rows;
    uint64_t *ids;
    uint64_t drop_limit;
    struct begin_array *begins;
    uint8_t *codes;         /* of the output's rows, or NULL: the graph is built over the vectors */
    uint32_t codes_starved; /* of the output */
    int curve_tried;        /* of the output */
    struct block_file *written; /* the output's vectors, while the graph is built */
    uint64_t written_offset;
    struct calibration calibration; /* of the output; count 0: none */
    struct part_info info;
    uint32_t part;
    int installed;
};

struct compact {
    omendb *db;
    enum compact_mode mode;
    struct compact_merge *merges;
    size_t merge_count;
    struct segment_writer *writer;
    uint64_t number;
    struct manifest_file file;
    int (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
    int is_second;   /* of two tries, the one that makes do with the memory there is */
    int begins_anew; /* it gave up, as copies for speed held memory */
};

/* ------------------------------------------------------------------ policy */

OMENDB_INTERNAL uint64_t compact_drop_limit(omendb *db)
{
    uint64_t oldest = txn_oldest(db), checkpoint = atomic_load(&db->checkpoint_commit);
    return oldest < checkpoint ? oldest : checkpoint;
}

struct compact_droppable {
    uint64_t limit;
    uint32_t rows;
};

static int compact_count_droppable(void *context, uint32_t row, uint64_t end)
{
    struct compact_droppable *droppable = context;
    (void)row;
    droppable->rows += end <= droppable->limit;
    return 0;
}

static uint32_t compact_droppable_rows(const struct segment *segment, uint64_t limit)
{
    struct compact_droppable droppable = {limit, 0};
    if (atomic_load(&segment->tombstones->dead) != 0)
        tombstones_each(segment->tombstones, segment->info.rows, compact_count_droppable,
                        &droppable);
    return droppable.rows;
}

/* Whether it is walked over its vectors for want of memory when it was written. */
static int compact_lacks_codes(const struct collection *collection, const struct segment *segment)
{
    return segment->codes.step == 0.0f && codes_apply_to(&collection->format) &&
           (segment->info.flags & SEGMENT_NO_RANGE) == 0;
}

/* Whether a merge may have the memory for them now. Each one that had not halves what may be in use
 * before the next, and from some on there is none until the database is opened anew. */
static int compact_can_make_codes(const struct collection *collection,
                                  const struct segment *segment)
{
    const struct memory *memory = &collection->db->memory;
    uint64_t row = codes_stride(collection->schema.dim) + collection->schema.M * UINT64_C(12) + 32,
             needed = row * segment->info.rows + memory_used_firmly(memory);
    return segment->codes_starved < COMPACT_MAX_STARVED &&
           (memory->limit == 0 || needed <= memory->limit >> segment->codes_starved);
}

/* Of a segment with many ended rows that may not be dropped yet: space.c is to look whether they
 * are worth a checkpoint, once, and each time there are an eighth more. */
static void compact_tell_space(omendb *db, struct segment *segment, uint32_t dead)
{
    uint32_t told = atomic_load(&segment->dead_told);
    if (dead > told + told / 8 && atomic_compare_exchange_strong(&segment->dead_told, &told, dead))
        work_notice_space(db);
}

static struct overlay *compact_overlay(const struct version *version, const struct segment *segment)
{
    uint32_t i = 0;
    while (i < version->segment_count && !segment_is_same(version->segments[i], segment))
        i++;
    return i < version->segment_count ? version->segment_overlays[i] : NULL;
}

/* Rows whose new documents a merge would write in place of the old ones. */
static uint32_t compact_updated_rows(const struct overlay *overlay, uint64_t limit)
{
    return overlay == NULL || overlay->base == NULL || overlay->commit > limit
               ? 0
               : overlay->base->count;
}

static int compact_is_outdated(const struct segment *segment, const struct overlay *overlay,
                               uint64_t limit)
{
    const uint64_t rows = compact_updated_rows(overlay, limit);
    return rows != 0 && (rows * COMPACT_UPDATED >= segment->info.rows ||
                         overlay->base->documents.length * 4 >= space_part_bytes(segment));
}

/* Whether a segment is worth rewriting alone. */
static int compact_is_stale(const struct collection *collection, struct segment *segment,
                            const struct overlay *overlay, uint64_t limit)
{
    uint64_t unindexed =
        (uint64_t)(segment->info.rows - segment->info.indexed_rows) * collection->vector_bytes;
    uint32_t parts = segment->file->file->part_count;
    if (unindexed > (UINT64_C(64) << 10) ||
        unindexed * COMPACT_GROWTH >= collection->db->tail_limit)
        return unindexed != 0;
    if (atomic_load(&segment->file->leave) ||
        (parts > 1 && atomic_load(&segment->file->references) * 2 <= parts))
        return 1;
    if (compact_lacks_codes(collection, segment) && compact_can_make_codes(collection, segment))
        return 1;
    if (compact_is_outdated(segment, overlay, limit))
        return 1;
    uint32_t dead = atomic_load(&segment->tombstones->dead);
    if (dead == 0 || (uint64_t)dead * 4 < segment->info.rows)
        return 0;
    if (limit > atomic_load(&segment->not_stale_limit)) {
        if (compact_droppable_rows(segment, limit) * UINT64_C(4) >= segment->info.rows)
            return 1;
        atomic_store(&segment->not_stale_limit, limit);
    }
    compact_tell_space(collection->db, segment, dead);
    return 0;
}

OMENDB_INTERNAL int compact_would_settle(uint64_t rows, uint64_t largest)
{
    return (rows - largest) * COMPACT_GROWTH_QUIET >= largest && rows != largest;
}

OMENDB_INTERNAL int compact_has_settled(const struct collection *collection, uint64_t rows)
{
    uint64_t settled = atomic_load(&collection->settled_rows);
    return settled != 0 && settled <= rows && rows - settled <= rows / COMPACT_QUIET_PART;
}

/* Whether searches by recall would have a curve of it if its graph were built anew: those that a
 * memtable built have none. */
static int compact_lacks_curve(const struct collection *collection, const struct version *version,
                               const struct segment *segment)
{
    struct graph_held held;
    calibrate_choose(0, segment->info.rows, &held);
    return held.count != 0 && segment->calibration == NULL && !segment->curve_tried &&
           search_own_curve(collection, version) == NULL &&
           compact_can_make_codes(collection, segment);
}

static uint32_t compact_pick_everything(const struct collection *collection,
                                        const struct version *version,
                                        struct segment *const *sorted, uint32_t count,
                                        uint64_t limit)
{
    if (count == 1 && !compact_lacks_codes(collection, sorted[0]) &&
        !compact_lacks_curve(collection, version, sorted[0]) &&
        sorted[0]->info.indexed_rows == sorted[0]->info.rows &&
        compact_droppable_rows(sorted[0], limit) == 0 &&
        compact_updated_rows(compact_overlay(version, sorted[0]), limit) == 0)
        return 0;
    return count;
}

/* While many rows wait for a graph, the segments that hold them come first, alone: a merge with the
 * large ones takes longer than searches and writers should wait, and longer than a program that
 * writes a little and closes lives. Keeps those in `sorted`; returns how many, or 0. */
static uint32_t compact_pick_behind(const struct collection *collection, struct segment **sorted,
                                    uint32_t count)
{
    struct segment *behind[COMPACT_MAX_INPUTS];
    uint64_t rows = 0, kept = 0;
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct part_info *info = &sorted[i]->info;
        rows += info->rows - info->indexed_rows;
        if (info->indexed_rows < info->rows) {
            behind[found++] = sorted[i];
            kept += info->indexed_rows;
        }
    }
    if (rows * collection->vector_bytes < COMPACT_BEHIND * collection->db->tail_limit ||
        kept > rows)
        return 0;
    memcpy(sorted, behind, found * sizeof *sorted);
    return found;
}

static uint32_t compact_pick_leaving(const struct version *version, struct segment **picked)
{
    for (uint32_t i = 0; i < version->segment_count; i++) {
        if (!atomic_load(&version->segments[i]->file->leave))
            continue;
        picked[0] = version->segments[i];
        return 1;
    }
    return 0;
}

/* Puts what is to be merged first in `sorted` (room for COMPACT_MAX_INPUTS); returns how many. */
static uint32_t compact_pick(const struct collection *collection, const struct version *version,
                             enum compact_mode mode, struct segment **sorted)
{
    uint64_t limit = compact_drop_limit(collection->db), smaller = 0;
    uint32_t count =
        version->segment_count < COMPACT_MAX_INPUTS ? version->segment_count : COMPACT_MAX_INPUTS;
    if (count == 0)
        return 0;
    if (mode == COMPACT_LEAVING)
        return compact_pick_leaving(version, sorted);
    for (uint32_t i = 0; i < count; i++) { /* descending by rows */
        uint32_t at = i;
        for (; at > 0 && sorted[at - 1]->info.rows < version->segments[i]->info.rows; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = version->segments[i];
    }
    if (mode == COMPACT_EVERYTHING)
        return compact_pick_everything(collection, version, sorted, count, limit);
    uint32_t behind = compact_pick_behind(collection, sorted, count);
    if (behind != 0)
        return behind;
    uint64_t largest, growth = COMPACT_GROWTH;
    if (compact_has_settled(collection, search_total_rows(version, &largest)))
        growth = COMPACT_GROWTH_QUIET;
    uint32_t first = count; /* the earliest that the rule takes */
    for (uint32_t i = count; i-- > 0;) {
        if (smaller != 0 && smaller * growth >= sorted[i]->info.rows)
            first = i;
        smaller += sorted[i]->info.rows;
    }
    if (first == count && count > COMPACT_MAX_SEGMENTS)
        first = 1;
    if (first < count) {
        memmove(sorted, sorted + first, (count - first) * sizeof *sorted);
        return count - first;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!compact_is_stale(collection, sorted[i], compact_overlay(version, sorted[i]), limit))
            continue;
        sorted[0] = sorted[i];
        return 1;
    }
    return 0;
}

OMENDB_INTERNAL int compact_wanted(struct collection *collection)
{
    struct segment *sorted[COMPACT_MAX_INPUTS];
    struct version *version = version_acquire(collection);
    int wanted = !atomic_load(&collection->dropped) &&
                 compact_pick(collection, version, COMPACT_BY_POLICY, sorted) != 0;
    version_release(version);
    return wanted;
}

/* ------------------------------------------------------------------ planning */

static int compact_keeps(const struct compact_merge *merge, const struct segment *segment,
                         uint32_t row)
{
    uint64_t end = tombstones_get(segment->tombstones, row);
    return end == 0 || end > merge->drop_limit;
}

static void compact_map_range(struct compact_merge *merge, uint32_t input, uint32_t first,
                              uint32_t last)
{
    for (uint32_t row = first; row < last; row++)
        merge->maps[input][row] =
            compact_keeps(merge, merge->inputs[input], row) ? merge->rows++ : GRAPH_NO_ROW;
}

/* Numbers the kept rows: the base's linked ones first, then its others, then the other inputs. */
static int compact_map(struct compact_merge *merge)
{
    struct memory *memory = &merge->collection->db->memory;
    uint64_t total = 0;
    merge->base = merge->input_count;
    for (uint32_t i = 0; i < merge->input_count; i++) {
        const struct part_info *info = &merge->inputs[i]->info;
        total += info->rows;
        if (info->indexed_rows != 0 &&
            (merge->base == merge->input_count ||
             info->indexed_rows > merge->inputs[merge->base]->info.indexed_rows))
            merge->base = i;
        merge->maps[i] = memory_array(memory, info->rows, sizeof **merge->maps);
        if (merge->maps[i] == NULL)
            return OMENDB_NOMEM;
    }
    if (total >= GRAPH_MAX_ROWS)
        return error_set(OMENDB_TOOBIG, "collection \"%s\": a segment of %llu rows; at most 2^31",
                         merge->collection->name, (unsigned long long)total);
    if (merge->base < merge->input_count) {
        const struct part_info *info = &merge->inputs[merge->base]->info;
        compact_map_range(merge, merge->base, 0, info->indexed_rows);
        merge->base_rows = merge->rows;
        compact_map_range(merge, merge->base, info->indexed_rows, info->rows);
    }
    for (uint32_t i = 0; i < merge->input_count; i++) {
        if (i != merge->base)
            compact_map_range(merge, i, 0, merge->inputs[i]->info.rows);
    }
    return OMENDB_OK;
}

static int compact_collect_ids(struct compact_merge *merge)
{
    struct memory *memory = &merge->collection->db->memory;
    merge->ids = memory_array(memory, merge->rows, sizeof *merge->ids);
    if (merge->ids == NULL)
        return OMENDB_NOMEM;
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < merge->input_count; i++) {
        for (uint32_t row = 0; row < merge->inputs[i]->info.rows && code == OMENDB_OK; row++) {
            if (merge->maps[i][row] != GRAPH_NO_ROW)
                code = segment_id(merge->inputs[i], row, &merge->ids[merge->maps[i][row]]);
        }
    }
    return code;
}

/* Begin commits are carried over while a transaction is open that is older than one of them. */
static int compact_collect_begins(struct compact_merge *merge)
{
    omendb *db = merge->collection->db;
    uint64_t oldest = txn_oldest(db), newest = 0;
    for (uint32_t i = 0; i < merge->input_count; i++) {
        const struct begin_array *begins = merge->inputs[i]->begins;
        if (begins != NULL && begins->newest > newest)
            newest = begins->newest;
    }
    if (newest <= oldest)
        return OMENDB_OK;
    merge->begins = begin_array_create(&db->memory, merge->rows);
    if (merge->begins == NULL)
        return OMENDB_NOMEM;
    merge->begins->newest = newest;
    for (uint32_t i = 0; i < merge->input_count; i++) {
        const struct begin_array *begins = merge->inputs[i]->begins;
        for (uint32_t row = 0; begins != NULL && row < begins->rows; row++) {
            if (merge->maps[i][row] != GRAPH_NO_ROW)
                merge->begins->begin[merge->maps[i][row]] = begins->begin[row];
        }
    }
    return OMENDB_OK;
}

static int compact_plan(struct compact_merge *merge, enum compact_mode mode)
{
    /* In this order: the version then has all documents up to the limit. */
    merge->drop_limit = compact_drop_limit(merge->collection->db);
    merge->version = version_acquire(merge->collection);
    merge->input_count = compact_pick(merge->collection, merge->version, mode, merge->inputs);
    if (merge->input_count == 0)
        return OMENDB_OK;
    for (uint32_t i = 0; i < merge->input_count; i++)
        merge->overlays[i] = compact_overlay(merge->version, merge->inputs[i]);
    int code = compact_map(merge);
    if (code == OMENDB_OK)
        code = compact_collect_ids(merge);
    if (code == OMENDB_OK)
        code = compact_collect_begins(merge);
    return code;
}

/* ------------------------------------------------------------------ vectors */

/* Appends the kept rows of [first, last), runs of neighbours at once. */
static int compact_write_range(struct segment_writer *writer, const struct compact_merge *merge,
                               uint32_t input, uint32_t first, uint32_t last)
{
    const struct segment *segment = merge->inputs[input];
    const uint32_t *map = merge->maps[input];
    size_t stride = segment->info.vector_stride;
    int code = OMENDB_OK;
    for (uint32_t row = first; row < last && code == OMENDB_OK;) {
        uint32_t end = row;
        while (end < last && map[end] != GRAPH_NO_ROW)
            end++;
        if (end > row) {
            code = blocks_touch(segment->full.file, segment->full.vectors_offset + row * stride,
                                (end - row) * stride);
            if (code == OMENDB_OK)
                code = segment_writer_append(writer, rows_at(&segment->full.vectors, row),
                                             (end - row) * stride);
        }
        row = end + 1;
    }
    return code;
}

/* Piece by piece, so that a merge does not hold its input resident. */
static int compact_write_input(struct segment_writer *writer, const struct compact_merge *merge,
                               uint32_t input)
{
    const struct segment *segment = merge->inputs[input];
    uint32_t rows = segment->info.rows, piece = COMPACT_COPIED / segment->info.vector_stride + 1;
    int code = OMENDB_OK;
    for (uint32_t first = 0, last; first < rows && code == OMENDB_OK; first = last) {
        last = rows - first < piece ? rows : first + piece;
        code = compact_write_range(writer, merge, input, first, last);
        graph_release_vectors(&segment->full, first, last);
    }
    return code;
}

static int compact_write_vectors(struct segment_writer *writer, const struct compact_merge *merge)
{
    int code = segment_writer_begin_section(writer, SECTION_VECTORS);
    if (code == OMENDB_OK && merge->base < merge->input_count)
        code = compact_write_input(writer, merge, merge->base);
    for (uint32_t i = 0; i < merge->input_count && code == OMENDB_OK; i++) {
        if (i != merge->base)
            code = compact_write_input(writer, merge, i);
    }
    return code;
}

/* ------------------------------------------------------------------ documents */

/* Where the output's next row comes from: the base first, then the others, as vectors are written.
 */
struct compact_documents {
    const struct compact_merge *merge;
    uint32_t turn; /* 0: the base, if there is one */
    uint32_t row;  /* of the input whose turn it is */
};

/* The input whose turn it is; input_count: of none. */
static uint32_t compact_turn(const struct compact_merge *merge, uint32_t turn)
{
    if (merge->base == merge->input_count)
        return turn;
    if (turn == 0)
        return merge->base;
    return turn <= merge->base ? turn - 1 : turn;
}

static int compact_read_document(void *context, uint32_t row, const uint8_t **document)
{
    struct compact_documents *from = context;
    const struct compact_merge *merge = from->merge;
    if (row == 0)
        from->turn = from->row = 0;
    for (; from->turn < merge->input_count; from->turn++, from->row = 0) {
        uint32_t input = compact_turn(merge, from->turn);
        const struct segment *segment = merge->inputs[input];
        while (from->row < segment->info.rows && merge->maps[input][from->row] == GRAPH_NO_ROW)
            from->row++;
        if (from->row < segment->info.rows)
            return segment_document_at(segment, merge->overlays[input], from->row++,
                                       merge->drop_limit, document);
    }
    *document = NULL;
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ graph */

struct compact_build {
    struct compact *compact;
    const struct compact_merge *merge;
    struct graph *graph;
    const struct graph_view *source; /* adopting */
    uint32_t first, last;            /* of the slice */
    struct graph_held held;          /* rows to insert last */
};

static int compact_step(void *context, uint64_t index)
{
    struct compact_build *build = context;
    omendb *db = build->compact->db;
    if (atomic_load(&db->stopping))
        return error_set(OMENDB_DONE, "the database is closing");
    struct scratch *scratch = scratch_take(db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    uint32_t first = build->first + (uint32_t)index * COMPACT_GRAIN;
    uint32_t last = build->last - first < COMPACT_GRAIN ? build->last : first + COMPACT_GRAIN;
    int code = OMENDB_OK;
    if (build->source != NULL)
        code = graph_adopt_rows(build->graph, build->source, build->merge->maps[build->merge->base],
                                scratch->graph, first, last);
    for (uint32_t row = first; build->source == NULL && row < last && code == OMENDB_OK; row++)
        code = graph_is_held(&build->held, row) ? OMENDB_OK
                                                : graph_insert(build->graph, scratch->graph, row);
    scratch_give(db, scratch);
    return code;
}

static int compact_insert_held(void *context, uint64_t index)
{
    struct compact_build *build = context;
    omendb *db = build->compact->db;
    struct scratch *scratch = scratch_take(db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    int code =
        graph_insert(build->graph, scratch->graph, graph_held_row(&build->held, (uint32_t)index));
    scratch_give(db, scratch);
    return code;
}

/* Steps over [first, last) in slices, with a look at `progress` after each. */
static int compact_build_rows(struct compact_build *build, uint32_t first, uint32_t last)
{
    struct compact *compact = build->compact;
    int code = OMENDB_OK;
    for (uint32_t at = first; at < last && code == OMENDB_OK;) {
        build->first = at;
        build->last = last - at < COMPACT_SLICE ? last : at + COMPACT_SLICE;
        uint64_t steps = (build->last - at + COMPACT_GRAIN - 1) / COMPACT_GRAIN;
        code = work_parallel(compact->db, steps, compact_step, build);
        at = build->last;
        if (build->source == NULL) {
            atomic_store(&compact->db->merge_rows, build->merge->rows);
            atomic_store(&compact->db->merge_done, at);
        }
        if (code == OMENDB_OK && build->source == NULL && compact->progress != NULL &&
            compact->progress(compact->context, at, build->merge->rows) != 0)
            code = error_set(OMENDB_DONE, "stopped by the progress function");
    }
    return code;
}

static int compact_adopt(struct compact_build *build)
{
    const struct compact_merge *merge = build->merge;
    const struct graph_view *source = hot_view(merge->inputs[merge->base]);
    const uint32_t *map = merge->maps[merge->base];
    int code = graph_adopt_begin(build->graph, source, map, merge->base_rows);
    build->source = source;
    if (code == OMENDB_OK)
        code = compact_build_rows(build, 0, source->count);
    if (code == OMENDB_OK)
        code = graph_adopt_end(build->graph);
    build->source = NULL;
    return code;
}

/* The output's vectors, of the file that is being written. */
static struct graph_view compact_full_view(const struct compact_merge *merge,
                                           const struct rows_view *vectors)
{
    return (struct graph_view){.vectors = *vectors,
                               .count = merge->rows,
                               .file = merge->written,
                               .vectors_offset = merge->written_offset};
}

static struct search_target compact_target(const struct compact_merge *merge,
                                           const struct rows_view *vectors,
                                           const struct graph *graph)
{
    struct search_target target = {.codes_are_exact =
                                       (merge->info.flags & SEGMENT_CODES_EXACT) != 0};
    graph_get_view(graph, &target.walk);
    target.full = target.walk;
    target.full.vectors = *vectors;
    target.full.kernel = merge->collection->kernel;
    if (merge->codes != NULL) {
        target.codes = part_code_format(merge->collection, &merge->info);
        target.full.file = merge->written;
        target.full.vectors_offset = merge->written_offset;
    }
    return target;
}

/* The base's curve, or NULL. */
static const struct calibration *compact_base_curve(const struct compact_merge *merge)
{
    return merge->base == merge->input_count ? NULL : merge->inputs[merge->base]->calibration;
}

/* Measures the output's curve and inserts the held rows. Where nothing could be measured the curve
 * of the graph that was adopted (`base`; NULL: none, as the graph was built anew) is kept until its
 * rows have doubled. */
static int compact_calibrate(struct compact_build *build, struct compact_merge *merge,
                             const struct rows_view *vectors, const struct calibration *base)
{
    int code = OMENDB_OK;
    merge->calibration.count = 0;
    if (build->held.count != 0) {
        struct search_target target = compact_target(merge, vectors, build->graph);
        code = calibrate_held_rows(merge->collection, &target, merge->rows, &build->held,
                                   &merge->calibration);
        if (code == OMENDB_OK)
            code = work_parallel(build->compact->db, build->held.count, compact_insert_held, build);
    }
    if (merge->calibration.count == 0 && base != NULL && merge->rows / 2 <= base->rows)
        merge->calibration = *base;
    return code;
}

static int compact_repair(const struct compact_build *build)
{
    struct scratch *scratch = scratch_take(build->compact->db);
    int code = scratch == NULL ? OMENDB_NOMEM
                               : graph_repair(build->graph, scratch->graph, build->merge->rows);
    scratch_give(build->compact->db, scratch);
    return code;
}

static int compact_insert(struct compact_build *build, struct compact_merge *merge,
                          const struct rows_view *vectors, uint32_t first)
{
    /* One that was measured on nearly as many rows is good enough. */
    const struct calibration *base = first == 0 ? NULL : compact_base_curve(merge);
    int code = graph_reserve(build->graph, build->merge->rows);
    if (code != OMENDB_OK)
        return code;
    graph_set_count(build->graph, build->merge->rows);
    if (base == NULL || merge->rows - merge->rows / COMPACT_CURVE_GROWTH > base->rows)
        calibrate_choose(first, merge->rows, &build->held);
    code = compact_build_rows(build, first, build->merge->rows);
    if (code == OMENDB_OK)
        code = compact_calibrate(build, merge, vectors, base);
    return code == OMENDB_OK ? compact_repair(build) : code;
}

static int compact_run_parallel(void *runner, uint64_t count,
                                int (*fn)(void *context, uint64_t index), void *context)
{
    return work_parallel(runner, count, fn, context);
}

/* Whoever calls `progress` tells of any end in words of its own. */
static int compact_name_end(const struct compact_build *build, int code)
{
    if (code == OMENDB_DONE && atomic_load(&build->compact->db->stopping))
        return error_set(OMENDB_DONE, "the database is closing");
    return code;
}

static int compact_bulk_progress(void *context, uint64_t done, uint64_t total)
{
    const struct compact_build *build = context;
    struct compact *compact = build->compact;
    uint64_t rows = build->merge->rows,
             at = total == 0 ? 0 : (uint64_t)((double)rows * (double)done / (double)total);
    if (atomic_load(&compact->db->stopping))
        return OMENDB_DONE;
    atomic_store(&compact->db->merge_rows, rows);
    atomic_store(&compact->db->merge_done, at);
    return compact->progress != NULL && compact->progress(compact->context, at, rows) != 0
               ? OMENDB_DONE
               : OMENDB_OK;
}

static struct graph_bulk_terms compact_bulk_terms(struct compact_build *build)
{
    return (struct graph_bulk_terms){.parallel = compact_run_parallel,
                                     .runner = build->compact->db,
                                     .progress = compact_bulk_progress,
                                     .context = build};
}

/* All rows at once, but for the held ones, which come last. */
static int compact_bulk(struct compact_build *build, struct compact_merge *merge,
                        const struct rows_view *vectors)
{
    struct graph_bulk_terms terms = compact_bulk_terms(build);
    int code = graph_reserve(build->graph, merge->rows);
    if (code != OMENDB_OK)
        return code;
    calibrate_choose(0, merge->rows, &build->held);
    terms.held = build->held;
    graph_set_count(build->graph, merge->rows);
    code = compact_name_end(build, graph_bulk(build->graph, &terms));
    if (code == OMENDB_OK)
        code = compact_calibrate(build, merge, vectors, NULL);
    return code == OMENDB_OK ? compact_repair(build) : code;
}

/* ------------------------------------------------------------------ recall gate */

/* Compares walks of two graphs over the same live rows, on the same queries. Truth is the best of
 * what both find with eight times the effort: an exact scan would cost more than the merge, and the
 * comparison needs only what either could have found. */
struct compact_gate {
    const struct compact_merge *merge;
    const struct rows_view *vectors; /* of new rows */
    struct graph_view fresh;         /* the merged graph, in new rows */
    const struct segment *old;       /* the input, in old rows, or NULL */
    struct graph_filter old_filter;
    struct scratch *scratch;
    struct graph_hit *hits; /* four lists of eight times ef */
    float *parents;         /* two f32 vectors */
    uint8_t *query;
    uint64_t random;
    size_t ef;
    double fresh_recall; /* sums over the queries, then means */
    double loss;         /* of it against the input: asking both the same takes out most noise */
    double fresh_squares, loss_squares; /* sums */
    uint32_t queries;
};

static int compact_gate_visible(const void *context, uint32_t row)
{
    const struct compact_merge *merge = context;
    return merge->maps[merge->base][row] != GRAPH_NO_ROW;
}

/* A query between a row and one of its neighbours: near the data, but not a stored row, which would
 * be found too easily. */
static int compact_gate_query(struct compact_gate *gate)
{
    const struct scalar_format *format = &gate->merge->collection->format;
    const char *reason;
    size_t position, dim = format->dim;
    gate->random = idmap_mix(gate->random + 1);
    uint32_t row = (uint32_t)(gate->random % gate->fresh.count);
    const uint32_t *links = (const uint32_t *)(const void *)rows_at(&gate->fresh.links, row);
    uint32_t neighbour = links[(gate->random >> 40) % gate->fresh.links_per_row];
    neighbour = neighbour < gate->fresh.count ? neighbour : row;
    memcpy(gate->query, rows_at(gate->vectors, row), gate->merge->collection->vector_bytes);
    if (format->scalar == OMENDB_B1)
        return OMENDB_OK;
    int code = scalar_export(format, rows_at(gate->vectors, row), OMENDB_F32, gate->parents);
    if (code == OMENDB_OK)
        code = scalar_export(format, rows_at(gate->vectors, neighbour), OMENDB_F32,
                             gate->parents + dim);
    for (size_t i = 0; i < dim && code == OMENDB_OK; i++)
        gate->parents[i] = 0.5f * gate->parents[i] + 0.5f * gate->parents[dim + i];
    if (code != OMENDB_OK || scalar_convert(format, gate->parents, OMENDB_F32, gate->query, &reason,
                                            &position) != OMENDB_OK)
        memcpy(gate->query, rows_at(gate->vectors, row), gate->merge->collection->vector_bytes);
    return OMENDB_OK;
}

static struct code_format compact_gate_codes(const struct compact_gate *gate, int of_old)
{
    if (of_old)
        return gate->old->codes;
    return part_code_format(gate->merge->collection, &gate->merge->info);
}

/* Rows of `hits` become new ones, distances those of the vectors: the two graphs may be walked over
 * different codes. */
static void compact_gate_settle(const struct compact_gate *gate, int of_old, struct graph_hit *hits,
                                size_t count)
{
    const struct collection *collection = gate->merge->collection;
    for (size_t i = 0; i < count; i++) {
        struct graph_hit hit = hits[i];
        size_t at = i;
        if (of_old)
            hit.row = gate->merge->maps[gate->merge->base][hit.row];
        hit.distance = collection->kernel->pair(gate->query, rows_at(gate->vectors, hit.row),
                                                collection->schema.dim);
        for (; at > 0 && (hits[at - 1].distance > hit.distance ||
                          (hits[at - 1].distance == hit.distance && hits[at - 1].row > hit.row));
             at--)
            hits[at] = hits[at - 1];
        hits[at] = hit;
    }
}

/* A walk of one of the graphs; hits in new rows. */
static int compact_gate_walk(struct compact_gate *gate, int of_old, size_t ef,
                             struct graph_hit *hits, size_t *count)
{
    const struct graph_view *view = of_old ? hot_view(gate->old) : &gate->fresh;
    const struct graph_effort effort = {.ef = ef, .k = ef};
    struct code_format codes = compact_gate_codes(gate, of_old);
    const uint8_t *query = gate->query;
    int code = OMENDB_OK;
    if (codes.step != 0.0f) {
        code = scratch_reserve_code(gate->scratch, view->vectors.stride);
        if (code == OMENDB_OK)
            (void)codes_encode_query(&codes, gate->query, gate->scratch->code);
        query = gate->scratch->code;
    }
    if (code == OMENDB_OK)
        code = graph_search(view, gate->scratch->graph, query, &effort,
                            of_old ? &gate->old_filter : NULL, hits, count, NULL);
    if (code == OMENDB_OK)
        compact_gate_settle(gate, of_old, hits, *count);
    return code;
}

/* How many of the first k of `hits` are as near as the k-th of the truth. */
static double compact_gate_score(const struct graph_hit *hits, size_t count, float bound, size_t k)
{
    size_t good = 0;
    for (size_t i = 0; i < count && i < k; i++)
        good += hits[i].distance <= bound;
    return (double)good / (double)k;
}

/* Distance of the k-th nearest in two ascending lists together; a row may be in both. */
static float compact_gate_bound(const struct graph_hit *a, size_t a_count,
                                const struct graph_hit *b, size_t b_count, size_t k)
{
    size_t i = 0, j = 0;
    float bound = -INFINITY;
    for (size_t taken = 0; taken < k && (i < a_count || j < b_count); taken++) {
        if (i < a_count && j < b_count && a[i].row == b[j].row) {
            bound = a[i].distance;
            i++;
            j++;
        } else if (j == b_count || (i < a_count && a[i].distance <= b[j].distance)) {
            bound = a[i++].distance;
        } else {
            bound = b[j++].distance;
        }
    }
    return bound;
}

static int compact_gate_ask(struct compact_gate *gate)
{
    size_t deep = gate->ef * 8, counts[4] = {0, 0, 0, 0};
    struct graph_hit *lists[4] = {gate->hits, gate->hits + deep, gate->hits + 2 * deep,
                                  gate->hits + 3 * deep};
    int code = compact_gate_query(gate);
    if (code == OMENDB_OK)
        code = compact_gate_walk(gate, 0, deep, lists[0], &counts[0]);
    if (code == OMENDB_OK)
        code = compact_gate_walk(gate, 0, gate->ef, lists[1], &counts[1]);
    if (code == OMENDB_OK && gate->old != NULL)
        code = compact_gate_walk(gate, 1, deep, lists[2], &counts[2]);
    if (code == OMENDB_OK && gate->old != NULL)
        code = compact_gate_walk(gate, 1, gate->ef, lists[3], &counts[3]);
    if (code != OMENDB_OK)
        return code;
    float bound = compact_gate_bound(lists[0], counts[0], lists[2], counts[2], COMPACT_GATE_K);
    double fresh = compact_gate_score(lists[1], counts[1], bound, COMPACT_GATE_K);
    double loss = compact_gate_score(lists[3], counts[3], bound, COMPACT_GATE_K) - fresh;
    gate->fresh_recall += fresh;
    gate->fresh_squares += fresh * fresh;
    gate->loss += loss;
    gate->loss_squares += loss * loss;
    gate->queries++;
    return OMENDB_OK;
}

static int compact_gate_run(struct compact_gate *gate)
{
    struct collection *collection = gate->merge->collection;
    omendb *db = collection->db;
    const struct graph_view full = compact_full_view(gate->merge, gate->vectors);
    size_t hit_bytes = gate->ef * 8 * 4 * sizeof *gate->hits,
           vector_bytes = collection->schema.dim * 2 * sizeof(float);
    gate->scratch = scratch_take(db);
    gate->hits = memory_alloc(&db->memory, hit_bytes);
    gate->parents = memory_alloc(&db->memory, vector_bytes);
    gate->query = memory_alloc(&db->memory, collection->vector_bytes);
    int code =
        gate->scratch == NULL || gate->hits == NULL || gate->parents == NULL || gate->query == NULL
            ? OMENDB_NOMEM
            : OMENDB_OK;
    for (uint32_t i = 0; i < COMPACT_GATE_QUERIES && code == OMENDB_OK; i++) {
        code = compact_gate_ask(gate);
        if (gate->merge->codes != NULL && i % COMPACT_GATE_RELEASE == 0)
            graph_release_vectors(&full, 0, full.count);
    }
    if (code == OMENDB_OK) {
        gate->fresh_recall /= gate->queries;
        gate->loss /= gate->queries;
    }
    memory_free(&db->memory, gate->hits, hit_bytes);
    memory_free(&db->memory, gate->parents, vector_bytes);
    memory_free(&db->memory, gate->query, collection->vector_bytes);
    scratch_give(db, gate->scratch);
    return code;
}

static void compact_gate_init(struct compact_gate *gate, const struct compact_merge *merge,
                              const struct rows_view *vectors, const struct graph *graph)
{
    memset(gate, 0, sizeof *gate);
    gate->merge = merge;
    gate->vectors = vectors;
    gate->ef = merge->collection->schema.ef < COMPACT_GATE_K ? COMPACT_GATE_K
                                                             : merge->collection->schema.ef;
    gate->ef = gate->ef < 1000 ? gate->ef : 1000;
    gate->random = merge->collection->schema.seed;
    graph_get_view(graph, &gate->fresh);
}

/* Of a mean, its square, by the sum of the squares of what was averaged. */
static double compact_gate_variance(const struct compact_gate *gate, double mean, double squares)
{
    double variance = squares / gate->queries - mean * mean;
    return variance > 0.0 ? variance / gate->queries : 0.0;
}

/* Whether a loss of recall is more than COMPACT_GATE_LOSS, and more than the sample's noise.
 * Without the latter a rebuild, which takes many times as long, would as often as not mend nothing.
 */
static int compact_gate_is_lost(double loss, double variance)
{
    return loss > COMPACT_GATE_LOSS + COMPACT_GATE_ERRORS * sqrt(variance);
}

/* Whether the relinked graph finds what its source found, and what a fresh build found when there
 * was one: the latter keeps losses that are too small to be seen from adding up. */
static int compact_gate_passes(const struct compact_merge *merge, const struct rows_view *vectors,
                               const struct graph *graph, int *passes)
{
    struct compact_gate gate;
    const struct segment *base = merge->inputs[merge->base];
    *passes = 1;
    if (merge->base_rows < COMPACT_GATE_MIN_ROWS || merge->base_rows == base->info.indexed_rows)
        return OMENDB_OK;
    compact_gate_init(&gate, merge, vectors, graph);
    gate.old = base;
    gate.old_filter = (struct graph_filter){.row_limit = base->info.indexed_rows,
                                            .excluded_row = GRAPH_NO_ROW,
                                            .visible = compact_gate_visible,
                                            .context = merge};
    int code = compact_gate_run(&gate);
    if (code != OMENDB_OK)
        return code;
    double of_loss = compact_gate_variance(&gate, gate.loss, gate.loss_squares),
           of_fresh = compact_gate_variance(&gate, gate.fresh_recall, gate.fresh_squares),
           since = (double)base->info.reference_recall - gate.fresh_recall;
    /* The reference was a sample of the same size. */
    *passes =
        !compact_gate_is_lost(gate.loss, of_loss) && !compact_gate_is_lost(since, 2 * of_fresh);
    return code;
}

/* The mark for later merges: taken from a build without drops, carried over by merges until the
 * collection has doubled. */
static int compact_set_reference(struct compact_merge *merge, const struct rows_view *vectors,
                                 const struct graph *graph, int fresh)
{
    struct compact_gate gate;
    const struct part_info *base =
        fresh || merge->base == merge->input_count ? NULL : &merge->inputs[merge->base]->info;
    if (merge->rows < COMPACT_GATE_MIN_ROWS)
        return OMENDB_OK;
    if (base != NULL && base->reference_recall > 0.0f && merge->rows / 2 <= base->reference_rows) {
        merge->info.reference_recall = base->reference_recall;
        merge->info.reference_rows = base->reference_rows;
        return OMENDB_OK;
    }
    compact_gate_init(&gate, merge, vectors, graph);
    int code = compact_gate_run(&gate);
    merge->info.reference_recall = (float)gate.fresh_recall;
    merge->info.reference_rows = merge->rows;
    return code;
}

/* ------------------------------------------------------------------ one output */

static int compact_create_graph(const struct compact_merge *merge, const struct rows_view *vectors,
                                struct graph **graph)
{
    struct graph_config config;
    struct rows_view codes = {&merge->codes, 31, UINT32_MAX >> 1,
                              codes_stride(merge->collection->schema.dim)};
    collection_graph_config(merge->collection, &config);
    if (merge->codes != NULL) {
        struct code_format format = part_code_format(merge->collection, &merge->info);
        config.vector_bytes = codes.stride;
        config.kernel = codes_kernel(&format);
        vectors = &codes;
    }
    return graph_create(&merge->collection->db->memory, &config, vectors, NULL, 0, graph);
}

/* After OMENDB_NOMEM: whether to give up, for compact_run to begin anew with the memory of copies.
 */
static int compact_begins_anew(struct compact *compact)
{
    compact->begins_anew |= !compact->is_second && hot_may_pause(compact->db);
    return compact->begins_anew;
}

/* In bulk, or one by one where there is no memory for that. */
static int compact_build_all(struct compact_build *build, struct compact_merge *merge,
                             const struct rows_view *vectors, struct graph **graph)
{
    int code = compact_bulk(build, merge, vectors);
    if (code != OMENDB_NOMEM || compact_begins_anew(build->compact))
        return code;
    graph_destroy(*graph);
    code = compact_create_graph(merge, vectors, graph);
    build->graph = *graph;
    return code == OMENDB_OK ? compact_insert(build, merge, vectors, 0) : code;
}

/* Whether the output gets a curve only if its graph is built anew: too few rows are to be inserted
 * for one, and that of the base is missing or too old. */
static int compact_must_build_for_curve(struct compact_merge *merge)
{
    const struct calibration *curve = compact_base_curve(merge);
    const struct segment *base = merge->inputs[merge->base];
    struct graph_held of_new, of_all;
    calibrate_choose(merge->base_rows, merge->rows, &of_new);
    calibrate_choose(0, merge->rows, &of_all);
    merge->curve_tried = base->curve_tried;
    if (of_new.count != 0 || of_all.count == 0 || merge->curve_tried ||
        (curve != NULL && merge->rows / 2 <= curve->rows) ||
        search_own_curve(merge->collection, merge->version) != NULL)
        return 0;
    merge->curve_tried = 1;
    return 1;
}

/* Builds the graph of all output rows over `vectors`. */
static int compact_build_graph(struct compact *compact, struct compact_merge *merge,
                               const struct rows_view *vectors, struct graph **graph)
{
    struct compact_build build = {.compact = compact, .merge = merge};
    /* Where half of the rows are new, building all of them in bulk takes no longer, and gives the
     * better graph. */
    int adopt = merge->base < merge->input_count && merge->base_rows > merge->rows / 2, passes = 1;
    if (adopt && compact->mode == COMPACT_EVERYTHING && compact_must_build_for_curve(merge))
        adopt = 0;
    int code = compact_create_graph(merge, vectors, graph);
    if (code == OMENDB_OK && adopt) {
        build.graph = *graph;
        code = compact_adopt(&build);
        if (code == OMENDB_OK)
            code = compact_gate_passes(merge, vectors, *graph, &passes);
        if (code == OMENDB_OK && !passes) {
            atomic_fetch_add(&compact->db->merges_rebuilt, 1);
            graph_destroy(*graph);
            adopt = 0;
            code = compact_create_graph(merge, vectors, graph);
        }
    }
    build.graph = *graph;
    if (code == OMENDB_OK && adopt)
        code = compact_insert(&build, merge, vectors, merge->base_rows);
    if (code == OMENDB_OK && adopt && compact->mode == COMPACT_EVERYTHING) {
        struct graph_bulk_terms terms = compact_bulk_terms(&build);
        code = compact_name_end(&build, graph_refine(*graph, &terms));
        if (code == OMENDB_NOMEM) /* it is as good as it was */
            code = compact_repair(&build);
    }
    if (code == OMENDB_OK && !adopt)
        code = compact_build_all(&build, merge, vectors, graph);
    if (code == OMENDB_OK)
        code = compact_set_reference(merge, vectors, *graph, !adopt);
    return code;
}

static size_t compact_code_bytes(const struct compact_merge *merge)
{
    return merge->rows * codes_stride(merge->collection->schema.dim);
}

static int compact_write_calibration(struct segment_writer *writer,
                                     const struct calibration *calibration)
{
    uint8_t bytes[FORMAT_CALIBRATION_BYTES + CALIBRATION_MAX_ENTRIES * FORMAT_CURVE_BYTES];
    if (calibration->count == 0)
        return OMENDB_OK;
    calibration_encode(calibration, bytes);
    int code = segment_writer_begin_section(writer, SECTION_CALIBRATION);
    return code == OMENDB_OK ? segment_writer_append(writer, bytes, calibration_bytes(calibration))
                             : code;
}

/* Where there is no memory for codes, the graph is built over the vectors: rows that are linked are
 * worth more than codes, which a later merge makes. */
static int compact_make_codes(struct compact *compact, struct compact_merge *merge,
                              const struct graph_view *full)
{
    int code = part_make_codes(merge->collection, full, &merge->info, &merge->codes);
    if (code != OMENDB_NOMEM || compact_begins_anew(compact))
        return code;
    part_report_codes(merge->collection);
    for (uint32_t i = 0; i < merge->input_count; i++) {
        if (merge->inputs[i]->codes_starved > merge->codes_starved)
            merge->codes_starved = merge->inputs[i]->codes_starved;
    }
    merge->codes_starved++;
    return OMENDB_OK;
}

static int compact_write_graph(struct compact *compact, struct compact_merge *merge)
{
    struct graph *graph = NULL;
    struct graph_view view;
    int code = segment_writer_flush(compact->writer, SECTION_VECTORS, &merge->written,
                                    &merge->written_offset);
    if (code == OMENDB_OK) {
        uint8_t *chunk = (uint8_t *)(uintptr_t)(merge->written->base + merge->written_offset);
        struct rows_view vectors = {&chunk, 31, UINT32_MAX >> 1, merge->info.vector_stride};
        const struct graph_view full = compact_full_view(merge, &vectors);
        code = compact_make_codes(compact, merge, &full);
        if (code == OMENDB_OK)
            code = compact_build_graph(compact, merge, &vectors, &graph);
        if (code == OMENDB_OK) {
            graph_get_view(graph, &view);
            part_describe_graph(&view, merge->rows, &merge->info);
        }
        segment_flush_close(compact->writer, merge->written);
        merge->written = NULL;
    }
    if (code == OMENDB_OK)
        code = part_write_links(compact->writer, &view, &merge->info);
    graph_destroy(graph);
    if (code == OMENDB_OK && merge->codes != NULL)
        code = segment_writer_begin_section(compact->writer, SECTION_CODES);
    if (code == OMENDB_OK && merge->codes != NULL)
        code = segment_writer_append(compact->writer, merge->codes, compact_code_bytes(merge));
    if (code == OMENDB_OK)
        code = compact_write_calibration(compact->writer, &merge->calibration);
    return code;
}

static int compact_write_part(struct compact *compact, struct compact_merge *merge)
{
    struct segment_writer *writer = compact->writer;
    struct compact_documents from = {merge, 0, 0};
    const struct part_documents documents = {compact_read_document, &from};
    part_describe(merge->collection, &merge->info);
    merge->info.rows = merge->rows;
    int code = segment_writer_begin_part(writer);
    if (code == OMENDB_OK)
        code = compact_write_vectors(writer, merge);
    if (code == OMENDB_OK)
        code = compact_write_graph(compact, merge);
    if (code == OMENDB_OK)
        code = part_write_ids(writer, &compact->db->memory, merge->ids, merge->rows, &merge->info);
    if (code == OMENDB_OK)
        code = part_write_documents(writer, &compact->db->memory, &compact->db->hash_seed,
                                    &documents, merge->rows);
    if (code == OMENDB_OK)
        code = segment_writer_end_part(writer, &merge->info);
    merge->part = segment_writer_parts(writer) - 1;
    return code;
}

/* ------------------------------------------------------------------ installing */

static int compact_is_input(const struct compact_merge *merge, const struct segment *segment)
{
    for (uint32_t i = 0; i < merge->input_count; i++) {
        if (segment_is_same(merge->inputs[i], segment))
            return 1;
    }
    return 0;
}

struct compact_carry {
    const uint32_t *map;
    struct tombstones *tombstones;
};

static int compact_carry_tombstone(void *context, uint32_t row, uint64_t end)
{
    struct compact_carry *carry = context;
    if (carry->map[row] == GRAPH_NO_ROW)
        return OMENDB_OK;
    int code = tombstones_prepare(carry->tombstones, carry->map[row]);
    if (code == OMENDB_OK)
        tombstones_set(carry->tombstones, carry->map[row], end);
    return code;
}

/* Newer documents of one row of an input after the other, on their way to the output's overlay. */
struct compact_updates {
    struct memory *memory;
    uint64_t limit;                /* what is at or below it was written with the row */
    uint64_t oldest;               /* what was replaced at or before it nobody needs */
    struct overlay *overlay;       /* of the output; NULL: none came yet */
    uint32_t rows;                 /* of the output */
    struct overlay_version *items; /* of the row, the newest first */
    size_t count, capacity;
};

static int compact_gather_updates(struct compact_updates *updates, const struct overlay *from,
                                  uint32_t row)
{
    struct overlay_version found;
    uint64_t replaced = UINT64_MAX;
    int code = overlay_find(from, row, UINT64_MAX, &found);
    updates->count = 0;
    while (code == OMENDB_OK && found.commit > updates->limit && replaced > updates->oldest) {
        if (updates->count == updates->capacity) {
            const size_t capacity = updates->capacity * 2 + 16;
            struct overlay_version *items =
                memory_resize(updates->memory, updates->items, updates->capacity * sizeof *items,
                              memory_multiply(capacity, sizeof *items));
            if (items == NULL)
                return OMENDB_NOMEM;
            updates->items = items;
            updates->capacity = capacity;
        }
        updates->items[updates->count++] = found;
        replaced = found.commit;
        code = overlay_find(from, row, replaced - 1, &found);
    }
    return code;
}

/* commit_mutex. */
static int compact_append_updates(struct compact_updates *updates, uint32_t row)
{
    int code = OMENDB_OK;
    if (updates->count != 0 && updates->overlay == NULL)
        updates->overlay = overlay_extend(updates->memory, NULL, updates->rows);
    if (updates->count != 0 && updates->overlay == NULL)
        return OMENDB_NOMEM;
    while (updates->count > 0 && code == OMENDB_OK) {
        const struct overlay_version *item = &updates->items[--updates->count];
        code = overlay_reserve(overlay_top(updates->overlay), 1, document_size(item->document));
        if (code == OMENDB_OK)
            overlay_append(updates->overlay, row, item->commit, item->document);
    }
    return code;
}

/* What the documents of the output lack. After a crash the log is replayed onto those of the
 * manifest's commit, so these are kept like those that transactions see. commit_mutex. */
static int compact_carry_updates(const struct compact_merge *merge, struct overlay **overlay)
{
    omendb *db = merge->collection->db;
    struct compact_updates updates = {.memory = &db->memory,
                                      .limit = merge->drop_limit,
                                      .oldest = compact_drop_limit(db),
                                      .rows = merge->rows};
    const struct version *version = atomic_load(&merge->collection->version);
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < merge->input_count && code == OMENDB_OK; i++) {
        const struct overlay *from = compact_overlay(version, merge->inputs[i]);
        uint32_t row = from == NULL ? UINT32_MAX : overlay_next(from, 0);
        for (; row != UINT32_MAX && code == OMENDB_OK; row = overlay_next(from, row + 1)) {
            if (merge->maps[i][row] == GRAPH_NO_ROW)
                continue;
            code = compact_gather_updates(&updates, from, row);
            if (code == OMENDB_OK)
                code = compact_append_updates(&updates, merge->maps[i][row]);
        }
    }
    memory_free(&db->memory, updates.items, updates.capacity * sizeof *updates.items);
    *overlay = updates.overlay;
    return code;
}

/* The version without the inputs, with the output (NULL: no row was left). commit_mutex. */
static int compact_swap(struct compact_merge *merge, struct segment *output,
                        struct overlay *overlay)
{
    struct collection *collection = merge->collection;
    const struct version *old = atomic_load(&collection->version);
    uint32_t present = 0, at = 0;
    for (uint32_t i = 0; i < old->segment_count; i++)
        present += (uint32_t)compact_is_input(merge, old->segments[i]);
    if (present != merge->input_count || atomic_load(&collection->dropped))
        return OMENDB_DROPPED;
    struct version *version = version_create(&collection->db->memory, old->memtable_count,
                                             old->segment_count - present + (output != NULL));
    if (version == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < old->memtable_count; i++)
        version_put_memtable(version, i, old->memtables[i], old->memtable_overlays[i]);
    /* The largest first, as it will be searched by most. */
    if (output != NULL)
        version_put_segment(version, at++, output, overlay);
    for (uint32_t i = 0; i < old->segment_count; i++) {
        if (!compact_is_input(merge, old->segments[i]))
            version_put_segment(version, at++, old->segments[i], old->segment_overlays[i]);
    }
    version_install(collection, version);
    return OMENDB_OK;
}

/* maintenance_mutex. */
static int compact_install(struct compact *compact, struct compact_merge *merge,
                           struct shared_file *file)
{
    omendb *db = compact->db;
    struct segment *output = NULL;
    struct overlay *overlay = NULL;
    int code = OMENDB_OK;
    if (merge->rows != 0) {
        code = segment_open(db, merge->collection, file, merge->part, NULL, merge->begins, &output);
        if (code != OMENDB_OK)
            return code;
        merge->begins = NULL;
        output->codes_starved = merge->codes_starved; /* before anybody else sees it */
        output->curve_tried = merge->curve_tried;
        output->documents_commit = merge->drop_limit;
    }
    platform_mutex_lock(&db->commit_mutex);
    for (uint32_t i = 0; output != NULL && i < merge->input_count && code == OMENDB_OK; i++) {
        struct compact_carry carry = {merge->maps[i], output->tombstones};
        code = tombstones_each(merge->inputs[i]->tombstones, merge->inputs[i]->info.rows,
                               compact_carry_tombstone, &carry);
    }
    if (code == OMENDB_OK && output != NULL)
        code = compact_carry_updates(merge, &overlay);
    if (code == OMENDB_OK)
        code = compact_swap(merge, output, overlay);
    platform_mutex_unlock(&db->commit_mutex);
    segment_release(output);
    overlay_release(overlay);
    merge->installed = code == OMENDB_OK;
    /* A collection that went meanwhile has no use for the output. */
    return code == OMENDB_DROPPED ? OMENDB_OK : code;
}

/* Mapped it takes little. Read into memory it takes its size, beside that of its inputs for as long
 * as a cursor reads them: that is not what is kept for checkpoints. */
static int compact_open_output(struct compact *compact, struct shared_file **file)
{
    omendb *db = compact->db;
    const int is_small = db->storage.io == OMENDB_IO_MAP && db->storage.vfs->map != NULL;
    if (compact->file.number == 0)
        return OMENDB_OK;
    if (is_small)
        memory_begin_maintenance();
    int code = shared_file_open(db, &compact->file, file);
    if (is_small)
        memory_end_maintenance();
    return code;
}

/* What was written would be in vain if it were refused memory now, and it takes the place of its
 * inputs. `file` is taken over. maintenance_mutex. */
static int compact_install_opened(struct compact *compact, struct shared_file *file)
{
    omendb *db = compact->db;
    int code = OMENDB_OK, installed = 0;
    memory_begin_maintenance();
    for (size_t i = 0; i < compact->merge_count && code == OMENDB_OK; i++) {
        if (compact->merges[i].input_count != 0)
            code = compact_install(compact, &compact->merges[i], file);
        installed += compact->merges[i].installed;
    }
    shared_file_release(file);
    if (installed) {
        /* When this fails the old manifest stays in force with the same records; the next
         * checkpoint names the new file, which stays protected until then. */
        int published = checkpoint_republish(db);
        code = code == OMENDB_OK ? published : code;
        if (published == OMENDB_OK)
            checkpoint_unprotect(db, compact->number);
        else
            checkpoint_entrust(db, compact->number);
        atomic_fetch_add(&db->merges, (uint64_t)installed);
    } else {
        checkpoint_unprotect(db, compact->number);
        if (code == OMENDB_OK)
            collect_files(db); /* nothing names the output */
    }
    memory_end_maintenance();
    return code;
}

static int compact_install_all(struct compact *compact)
{
    omendb *db = compact->db;
    struct shared_file *file = NULL;
    platform_mutex_lock(&db->maintenance_mutex);
    int code = compact_open_output(compact, &file);
    if (code == OMENDB_OK)
        code = compact_install_opened(compact, file);
    else
        checkpoint_unprotect(db, compact->number);
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

/* ------------------------------------------------------------------ the whole */

static void compact_destroy_merge(struct compact_merge *merge)
{
    struct memory *memory = &merge->collection->db->memory;
    for (uint32_t i = 0; i < merge->input_count; i++)
        memory_free(memory, merge->maps[i],
                    merge->maps[i] == NULL ? 0
                                           : merge->inputs[i]->info.rows * sizeof **merge->maps);
    memory_free(memory, merge->ids, merge->ids == NULL ? 0 : merge->rows * sizeof *merge->ids);
    memory_free_aligned(memory, merge->codes, compact_code_bytes(merge));
    begin_array_release(merge->begins);
    version_release(merge->version);
}

static uint64_t compact_expected_bytes(const struct compact *compact)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < compact->merge_count; i++) {
        const struct collection *collection = compact->merges[i].collection;
        bytes +=
            compact->merges[i].rows * (uint64_t)(collection->vector_bytes + collection->schema.dim +
                                                 collection->schema.M * 9 + 40);
    }
    return bytes;
}

/* Writes all outputs to one file and syncs it. */
static int compact_write(struct compact *compact)
{
    omendb *db = compact->db;
    uint64_t rows = 0;
    for (size_t i = 0; i < compact->merge_count; i++)
        rows += compact->merges[i].rows;
    if (rows == 0)
        return OMENDB_OK;
    int code = segment_writer_create(&db->storage, STORAGE_SEGMENT, compact->number,
                                     compact_expected_bytes(compact), &compact->writer);
    for (size_t i = 0; i < compact->merge_count && code == OMENDB_OK; i++) {
        if (compact->merges[i].rows != 0)
            code = compact_write_part(compact, &compact->merges[i]);
    }
    compact->file = (struct manifest_file){compact->number, 0, 0, STORAGE_SEGMENT};
    if (code == OMENDB_OK)
        code =
            segment_writer_finish(compact->writer, &compact->file.size, &compact->file.footer_crc);
    segment_writer_destroy(compact->writer);
    return code;
}

static int compact_try(struct compact *compact, struct collection *const *collections, int *merged)
{
    omendb *db = compact->db;
    size_t count = compact->merge_count;
    uint32_t inputs = 0;
    size_t planned = 0;
    *merged = 0;
    int code = commit_check_writable(db);
    if (code != OMENDB_OK || count == 0)
        return code;
    compact->merges = memory_zalloc(&db->memory, count * sizeof *compact->merges);
    if (compact->merges == NULL)
        return OMENDB_NOMEM;
    for (; planned < count && code == OMENDB_OK; planned++) {
        compact->merges[planned].collection = collections[planned];
        code = compact_plan(&compact->merges[planned], compact->mode);
        inputs += compact->merges[planned].input_count;
    }
    if (code == OMENDB_OK && inputs != 0) {
        code = checkpoint_protect(db, &compact->number);
        if (code == OMENDB_OK) {
            code = compact_write(compact);
            if (code == OMENDB_OK) {
                code = compact_install_all(compact);
                *merged = code == OMENDB_OK;
            } else {
                if (atomic_load(&db->storage.sync_failed))
                    commit_poison(db, code);
                platform_mutex_lock(&db->maintenance_mutex);
                checkpoint_unprotect(db, compact->number);
                platform_mutex_unlock(&db->maintenance_mutex);
            }
        }
    }
    for (size_t i = 0; i < planned; i++)
        compact_destroy_merge(&compact->merges[i]);
    memory_free(&db->memory, compact->merges, count * sizeof *compact->merges);
    return code;
}

OMENDB_INTERNAL int compact_run(omendb *db, struct collection *const *collections, size_t count,
                                enum compact_mode mode,
                                int (*progress)(void *context, uint64_t done, uint64_t total),
                                void *context, int *merged)
{
    struct compact first = {
        .db = db, .mode = mode, .progress = progress, .context = context, .merge_count = count};
    struct compact second = first;
    int code = compact_try(&first, collections, merged);
    int paused = code == OMENDB_NOMEM && hot_pause(db);
    /* Where it gave up for the copies, they may have gone before they could be held. */
    if (!paused && !(code == OMENDB_NOMEM && first.begins_anew))
        return code;
    second.is_second = 1;
    code = compact_try(&second, collections, merged);
    if (paused)
        hot_resume(db);
    return code;
}

#undef COMPACT_MAX_SEGMENTS
#undef COMPACT_GROWTH
#undef COMPACT_GROWTH_QUIET
#undef COMPACT_QUIET_PART
#undef COMPACT_BEHIND
#undef COMPACT_MAX_INPUTS
#undef COMPACT_SLICE
#undef COMPACT_GRAIN
#undef COMPACT_MAX_STARVED
#undef COMPACT_COPIED
#undef COMPACT_GATE_MIN_ROWS
#undef COMPACT_GATE_QUERIES
#undef COMPACT_GATE_K
#undef COMPACT_GATE_RELEASE
#undef COMPACT_GATE_LOSS
#undef COMPACT_GATE_ERRORS
#undef COMPACT_UPDATED
#undef COMPACT_CURVE_GROWTH
