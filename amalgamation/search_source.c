/* search_source.c: one source of rows: a memtable or a segment as a search sees it.
 *
 * It tells what is visible at the commit of the search, what matches its predicate, what the
 * columns list of that, and keeps the answers: of each row the predicate is asked at most once,
 * however often it is met, and only where it is visible; a batch keeps them for its other queries
 * (search_begin_predicate). A row that was updated is asked on its own: its document is not that of
 * the columns.
 *
 * With `hiding` the stored rows that the transaction changed are invisible, as deleted rows are:
 * each row that comes near is looked up.
 *
 * An id or a document that cannot be read fails the search, but not here: the row counts as a
 * match, and as one that nobody changed, and naming it fails, or the plan of the filter says so in
 * the end. */
#include "search_internal.h"
#include "prefetch.h"

#include <string.h>

OMENDB_INTERNAL int search_check_deadline(const struct search_request *request)
{
    const omendb_vfs *vfs = request->collection->db->storage.vfs;
    if (request->deadline_us == 0 || vfs->now_us(vfs->context) < request->deadline_us)
        return OMENDB_OK;
    return error_set(OMENDB_TIMEOUT, "the search took longer than query.timeout_us");
}

OMENDB_INTERNAL void search_memtable_source(const struct search_request *request, uint32_t index,
                                            struct search_source *source)
{
    struct memtable *memtable = request->version->memtables[index];
    const struct collection *collection = request->collection;
    const uint64_t commit = request->commit;
    memset(source, 0, sizeof *source);
    /* In this order: what is indexed is in the view, what is visible is in it, too. */
    source->indexed = memtable_graph_rows(memtable);
    source->row_limit = memtable_visible_rows(memtable, commit);
    graph_get_view(memtable->graph, &source->view);
    source->walk = source->view;
    if (memtable->codes.step != 0.0f) {
        source->codes = &memtable->codes;
        source->codes_are_exact =
            codes_are_exact(&memtable->codes) && atomic_load(&memtable->inexact) == 0;
        source->view.vectors = memtable_vectors(memtable);
        source->view.kernel = collection->kernel;
    }
    if (memtable->graphless) {
        source->view.vectors = memtable_vectors(memtable);
        source->view.count = source->row_limit;
    }
    source->tail = source->walk;
    source->commit = commit;
    source->tombstones = memtable->tombstones;
    source->overlay = request->version->memtable_overlays[index];
    source->memtable = memtable;
}

OMENDB_INTERNAL void search_segment_source(const struct search_request *request, uint32_t index,
                                           struct search_source *source)
{
    struct segment *segment = request->version->segments[index];
    const uint64_t commit = request->commit;
    memset(source, 0, sizeof *source);
    source->view = segment->full;
    source->walk = *hot_view(segment);
    source->tail = segment->graph;
    source->tail.count = segment->info.rows;
    source->codes = segment->codes.step == 0.0f ? NULL : &segment->codes;
    source->codes_are_exact =
        (segment->info.flags & SEGMENT_CODES_EXACT) != 0 && codes_are_exact(&segment->codes);
    source->indexed = segment->info.indexed_rows;
    source->row_limit = segment->info.rows;
    source->commit = commit;
    source->tombstones = segment->tombstones;
    source->overlay = request->version->segment_overlays[index];
    source->begins =
        segment->begins != NULL && segment->begins->newest > commit ? segment->begins : NULL;
    source->segment = segment;
}

OMENDB_INTERNAL int search_source_id(const struct search_source *source, uint32_t row, uint64_t *id)
{
    if (source->segment != NULL)
        return segment_id(source->segment, row, id);
    *id = memtable_id(source->memtable, row);
    return OMENDB_OK;
}

/* The ids of rows from `first`, a multiple of 64, to `last`, at most 64; NULL: they cannot be read.
 */
static const uint8_t *search_source_ids(const struct search_source *source, uint32_t first,
                                        uint32_t last)
{
    if (source->segment == NULL) {
        struct rows_view ids = rows_store_view(&source->memtable->ids);
        return rows_at(&ids, first);
    }
    struct block_file *file = &source->segment->file->file->blocks;
    uint64_t offset = source->segment->ids.offset + first * sizeof(uint64_t);
    return blocks_touch(file, offset, (last - first) * sizeof(uint64_t)) == OMENDB_OK
               ? file->base + offset
               : NULL;
}

/* Whether the transaction changed the record. A row whose id cannot be read counts as unchanged:
 * where it is a hit, naming it fails. */
static int search_is_changed(const struct search_source *source, uint32_t row)
{
    const struct search_request *request = source->hiding;
    uint64_t id;
    return search_source_id(source, row, &id) == OMENDB_OK &&
           txn_find(request->txn, request->collection, id) != NULL;
}

/* Without a branch: 0, which none has, becomes the greatest number. */
static inline int search_has_ended(const struct search_source *source, uint32_t row)
{
    return tombstones_get(source->tombstones, row) - 1 < source->commit;
}

OMENDB_INTERNAL int search_visible(const void *context, uint32_t row)
{
    const struct search_source *source = context;
    if (search_has_ended(source, row))
        return 0;
    if (source->begins != NULL && source->begins->begin[row] > source->commit)
        return 0;
    return source->hiding == NULL || !search_is_changed(source, row);
}

static int search_id_matches(const struct search_predicate *predicate, uint64_t id)
{
    return predicate->match == NULL || predicate->match(predicate->context, id) != 0;
}

OMENDB_INTERNAL int search_record_matches(const struct search_predicate *predicate, uint64_t id,
                                          const uint8_t *document)
{
    if (predicate == NULL)
        return 1;
    if (predicate->filter != NULL && !filter_matches(predicate->filter, id, document))
        return 0;
    return search_id_matches(predicate, id);
}

/* Of a segment's row whose document is not that of the columns. *known = 0: it is. */
static int search_overlaid_matches(const struct search_source *source, uint32_t row, int *known)
{
    struct overlay_version found;
    uint64_t id = 0;
    int code = overlay_find(source->overlay, row, source->commit, &found);
    *known = code != OMENDB_OK || found.commit != 0;
    if (code == OMENDB_OK && *known)
        code = segment_id(source->segment, row, &id);
    if (code == OMENDB_OK)
        return *known && filter_matches(source->predicate->filter, id, found.document);
    if (source->plan->code == OMENDB_OK)
        source->plan->code = code;
    return 1;
}

static int search_filter_matches(const struct search_source *source, uint32_t row)
{
    int known = 0, matches = 0;
    if (source->segment != NULL) {
        if (overlay_may_have(source->overlay, row))
            matches = search_overlaid_matches(source, row, &known);
        return known ? matches : column_filter_matches(source->plan, row);
    }
    const uint8_t *document;
    (void)memtable_document_at(source->memtable, source->overlay, row, source->commit, &document);
    return filter_matches(source->predicate->filter, memtable_id(source->memtable, row), document);
}

OMENDB_INTERNAL int search_row_matches(const struct search_source *source, uint32_t row)
{
    const struct search_predicate *predicate = source->predicate;
    uint64_t id;
    if (predicate->filter != NULL && !search_filter_matches(source, row))
        return 0;
    return predicate->match == NULL || search_source_id(source, row, &id) != OMENDB_OK ||
           search_id_matches(predicate, id);
}

static int search_matches(const struct search_source *source, uint32_t row)
{
    const uint64_t bit = UINT64_C(1) << (row % 64);
    if (source->predicate == NULL)
        return 1;
    if (matches_knows(source->matches, row))
        return matches_has(source->matches, row);
    int answer = search_row_matches(source, row);
    matches_note(source->matches, row / 64, bit, answer ? bit : 0);
    return answer;
}

OMENDB_INTERNAL int search_visible_match(const void *context, uint32_t row)
{
    return search_visible(context, row) && search_matches(context, row);
}

/* A bit for each visible row of [first, last), all of one word. */
static uint64_t search_visible_word(const struct search_source *source, uint32_t first,
                                    uint32_t last)
{
    uint64_t visible = 0;
    if (!source->hides)
        return (UINT64_MAX >> (64 - (last - first))) << (first % 64);
    for (uint32_t row = first; row < last; row++)
        visible |= (uint64_t)!search_has_ended(source, row) << (row % 64);
    if (source->begins == NULL && source->hiding == NULL)
        return visible;
    for (uint64_t left = visible; left != 0; left &= left - 1) {
        const uint32_t bit = graph_lowest_bit(left);
        if (!search_visible(source, first / 64 * 64 + bit))
            visible &= ~(UINT64_C(1) << bit);
    }
    return visible;
}

/* search_matches of rows [first, last) of one word, as far as they are visible. */
static void search_match_word(const struct search_source *source, uint32_t first, uint32_t last)
{
    const uint32_t word = first / 64;
    const uint8_t *ids = search_source_ids(source, word * 64, last);
    uint64_t left = search_visible_word(source, first, last) & ~source->matches->asked[word];
    uint64_t asked = left, chosen = 0, id;
    for (; left != 0; left &= left - 1) {
        const uint32_t bit = graph_lowest_bit(left);
        if (source->predicate->filter != NULL) {
            chosen |= (uint64_t)search_row_matches(source, word * 64 + bit) << bit;
            continue;
        }
        if (ids != NULL)
            memcpy(&id, ids + bit * sizeof id, sizeof id);
        if (ids == NULL || search_id_matches(source->predicate, id))
            chosen |= UINT64_C(1) << bit;
    }
    matches_note(source->matches, word, asked, chosen);
}

OMENDB_INTERNAL void search_match_rows(const struct search_source *source, uint32_t first,
                                       uint32_t last)
{
    while (source->predicate != NULL && first < last) {
        uint32_t end = last - first > 64 - first % 64 ? first + (64 - first % 64) : last;
        search_match_word(source, first, end);
        first = end;
    }
}

static void search_prefetch(const void *context, uint32_t row)
{
    const struct search_source *source = context;
    if (source->segment != NULL)
        prefetch_line(source->segment->file->file->blocks.base + source->segment->ids.offset +
                      row * sizeof(uint64_t));
}

OMENDB_INTERNAL struct graph_filter search_filter(const struct search_source *source)
{
    return (struct graph_filter){.row_limit = source->row_limit,
                                 .excluded_row = GRAPH_NO_ROW,
                                 .visible = source->predicate != NULL ? search_visible_match
                                            : source->hides           ? search_visible
                                                                      : NULL,
                                 .context = source,
                                 .prefetch = source->predicate != NULL ? search_prefetch : NULL,
                                 .chosen = source->chosen};
}

OMENDB_INTERNAL struct graph_filter search_scan_filter(const struct search_source *source)
{
    struct graph_filter filter = search_filter(source);
    if (source->predicate != NULL) {
        filter.visible = NULL;
        filter.chosen = source->matches->chosen;
    }
    return filter;
}

OMENDB_INTERNAL uint32_t search_most(const struct search_source *source)
{
    const uint32_t most = source->plan == NULL ? UINT32_MAX : column_filter_most(source->plan),
                   updated = overlay_count(source->overlay);
    return most < UINT32_MAX - updated ? most + updated : UINT32_MAX;
}

OMENDB_INTERNAL int search_make_plan_of_filter(struct search_source *source, struct memory *memory,
                                               struct column_filter *plan)
{
    const omendb_filter *filter = source->predicate->filter;
    source->plan = plan;
    return source->segment != NULL ? column_filter_make(plan, memory, filter, source->segment)
                                   : column_filter_make_memtable(
                                         plan, memory, filter, source->memtable, source->row_limit);
}

/* Of 64 rows those that are to be asked even where lists are exact. Of a memtable none is: only ids
 * and keys are listed, which no update changes. */
static uint64_t search_updated_word(const struct search_source *source, uint32_t word)
{
    return source->segment != NULL ? overlay_word(source->overlay, word) : 0;
}

OMENDB_INTERNAL int search_list(const struct search_source *source, uint64_t **bits, int *exact)
{
    const uint32_t rows = source->row_limit;
    int code = column_filter_list(source->plan, rows, bits, exact);
    for (uint32_t word = 0;
         overlay_count(source->overlay) != 0 && word <= rows / 64 && code == OMENDB_OK; word++)
        (*bits)[word] |= search_updated_word(source, word);
    return code;
}

OMENDB_INTERNAL void search_know_matches(struct search_source *source)
{
    source->matches->complete = 1;
    source->chosen = source->matches->chosen;
    source->chosen_count = (uint32_t)source->matches->chosen_rows;
    source->predicate = NULL;
}

OMENDB_INTERNAL int search_choose_listed(const struct search_request *request,
                                         struct search_source *source)
{
    const uint32_t rows = source->row_limit;
    uint64_t *bits;
    int exact, code = search_list(source, &bits, &exact);
    exact &= source->predicate->match == NULL;
    for (uint32_t word = 0; word * UINT64_C(64) < rows && code == OMENDB_OK; word++) {
        const uint32_t first = word * 64, last = rows - first < 64 ? rows : first + 64;
        if (word % (SEARCH_SCAN_RUN / 64) == 0)
            code = search_check_deadline(request);
        if (bits[word] == 0)
            continue;
        const uint64_t visible = search_visible_word(source, first, last);
        const uint64_t asked = bits[word] & visible & ~source->matches->asked[word];
        uint64_t chosen = exact ? asked & ~search_updated_word(source, word) : 0;
        for (uint64_t left = asked & ~chosen; left != 0; left &= left - 1) {
            const uint32_t bit = graph_lowest_bit(left);
            chosen |= (uint64_t)search_row_matches(source, word * 64 + bit) << bit;
        }
        if (asked != 0)
            matches_note(source->matches, word, asked, chosen);
    }
    if (code == OMENDB_OK)
        search_know_matches(source);
    return code;
}
