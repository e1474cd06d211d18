/* pages.c: see pages.h. The handle holds a version and reads at one commit, as cursors do (rows.c).
 *
 * A search gives the nearest of all, so one for twice as many as were found so far begins with
 * those. What it finds that was not found before waits in a list until it is given. As each search
 * is for twice as many as the one before, all of them together cost about two of the last, which
 * looks for at most twice what was given. Searches are never told to leave out what was given: that
 * would be a condition that hardly any record near the query meets, against which walks do worst.
 *
 * Every hit enters `seen` once, so none is given twice, whatever approximate searches find. Where
 * one finds fewer than it asked for there are no more (k means k), and the pages end. */
#include "pages.h"

#include <string.h>

#define PAGES_FIRST(k) (2 * (k)) /* hits that the first search asks for */
/* As for cursors: so many may lie in the readers' share of the reserve. */
#define PAGES_IN_RESERVE 2

struct omendb_pages {
    uint32_t magic;
    omendb *db;
    struct collection *collection;
    struct version *version;
    omendb_txn *txn; /* NULL: none */
    struct txn_cursor cursor;
    struct search_predicate predicate;
    struct search_request request; /* k: of the last search */
    uint8_t *vector;
    uint64_t *excluded;
    struct search_hit *hits; /* in order; from `next` on they were not given yet */
    size_t next, count, room;
    uint64_t *seen; /* ascending ids of all that ever were in `hits` */
    size_t seen_count, seen_room;
    int complete; /* there are no others */
};

/* ------------------------------------------------------------------ opening */

static int pages_copy_request(omendb_pages *pages, const struct search_request *request)
{
    struct memory *memory = &pages->db->memory;
    const size_t bytes = pages->collection->vector_bytes;
    pages->request = *request;
    pages->request.k = 0;
    if (request->predicate != NULL) {
        pages->predicate = *request->predicate;
        filter_hold(pages->predicate.filter);
        pages->request.predicate = &pages->predicate;
    }
    pages->vector = memory_alloc(memory, bytes);
    pages->excluded = memory_array(memory, request->excluded_count, sizeof *pages->excluded);
    if (pages->vector == NULL || pages->excluded == NULL)
        return OMENDB_NOMEM;
    memcpy(pages->vector, request->vector, bytes);
    if (request->excluded_count != 0)
        memcpy(pages->excluded, request->excluded,
               request->excluded_count * sizeof *pages->excluded);
    pages->request.vector = pages->vector;
    pages->request.excluded = pages->excluded;
    return OMENDB_OK;
}

static int pages_make(const struct search_request *request, omendb_txn *txn,
                      struct version *version, omendb_pages **pages)
{
    omendb *db = request->collection->db;
    omendb_pages *made = memory_zalloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->magic = PAGES_MAGIC;
    made->db = db;
    made->collection = collection_reference(request->collection);
    int code = pages_copy_request(made, request);
    if (code != OMENDB_OK) {
        pages_free(made);
        return code;
    }
    made->version = version;
    made->txn = txn;
    if (txn != NULL)
        txn_add_cursor(txn, &made->cursor);
    *pages = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL int pages_open(const struct search_request *request, omendb_txn *txn,
                               struct version *version, omendb_pages **pages)
{
    omendb *db = request->collection->db;
    const int few = atomic_load(&db->open_cursors) < PAGES_IN_RESERVE;
    if (few)
        memory_begin_reading();
    int code = pages_make(request, txn, version, pages);
    if (few)
        memory_end_reading();
    if (code != OMENDB_OK)
        return code;
    atomic_fetch_add(&db->children, 1);
    atomic_fetch_add(&db->open_cursors, 1);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ hits */

static int pages_compare(const void *left, const void *right)
{
    const struct search_hit *a = left, *b = right;
    return a->distance != b->distance ? (a->distance > b->distance) - (a->distance < b->distance)
                                      : (a->id > b->id) - (a->id < b->id);
}

static int pages_has_seen(const omendb_pages *pages, size_t count, uint64_t id)
{
    size_t low = 0, high = count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (pages->seen[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && pages->seen[low] == id;
}

/* Room for `more` hits behind those that were not given yet, which move to the front. */
static int pages_reserve(omendb_pages *pages, size_t more)
{
    struct memory *memory = &pages->db->memory;
    const size_t left = pages->count - pages->next;
    const size_t hits = memory_add(left, more), seen = memory_add(pages->seen_count, more);
    if (left != 0)
        memmove(pages->hits, pages->hits + pages->next, left * sizeof *pages->hits);
    pages->next = 0;
    pages->count = left;
    if (hits > pages->room) {
        struct search_hit *grown = memory_resize(memory, pages->hits, pages->room * sizeof *grown,
                                                 memory_multiply(hits, sizeof *grown));
        if (grown == NULL)
            return OMENDB_NOMEM;
        pages->hits = grown;
        pages->room = hits;
    }
    if (seen > pages->seen_room) {
        uint64_t *grown = memory_resize(memory, pages->seen, pages->seen_room * sizeof *grown,
                                        memory_multiply(seen, sizeof *grown));
        if (grown == NULL)
            return OMENDB_NOMEM;
        pages->seen = grown;
        pages->seen_room = seen;
    }
    return OMENDB_OK;
}

/* Those of a search that are new. There is room. */
static void pages_keep_new(omendb_pages *pages, const uint64_t *ids, const float *distances,
                           size_t count)
{
    const size_t known = pages->seen_count;
    for (size_t i = 0; i < count; i++) {
        if (pages_has_seen(pages, known, ids[i]))
            continue;
        pages->hits[pages->count++] = (struct search_hit){distances[i], ids[i]};
        pages->seen[pages->seen_count++] = ids[i];
    }
    sort_array(pages->hits, pages->count, sizeof *pages->hits, pages_compare);
    sort_array(pages->seen, pages->seen_count, sizeof *pages->seen, sort_compare_numbers);
}

/* A search for `reach` hits. */
static int pages_search(omendb_pages *pages, struct scratch *scratch, size_t reach)
{
    struct memory *memory = &pages->db->memory;
    struct search_request request = pages->request;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint64_t *ids = memory_array(memory, reach, sizeof *ids);
    float *distances = memory_array(memory, reach, sizeof *distances);
    size_t count = 0;
    int code = ids == NULL || distances == NULL ? OMENDB_NOMEM : OMENDB_OK;
    request.k = reach;
    if (code == OMENDB_OK)
        code = pages_reserve(pages, reach);
    if (code == OMENDB_OK)
        code = search_run(&request, scratch, ids, distances, &count, &explain);
    if (code == OMENDB_OK) {
        pages_keep_new(pages, ids, distances, count);
        pages->request.k = reach;
        pages->complete = count < reach;
    }
    memory_free(memory, ids, reach * sizeof *ids);
    memory_free(memory, distances, reach * sizeof *distances);
    return code;
}

/* Until `k` hits wait to be given, or there are no more. */
static int pages_fill(omendb_pages *pages, size_t k)
{
    uint64_t largest;
    const size_t own = pages->request.txn == NULL ? 0 : pages->request.txn->write_count;
    const size_t rows = (size_t)search_total_rows(pages->version, &largest) + own + 1;
    struct scratch *scratch = NULL;
    int code = OMENDB_OK;
    k = k < rows ? k : rows;
    while (code == OMENDB_OK && !pages->complete && pages->count - pages->next < k) {
        const size_t given = pages->seen_count - (pages->count - pages->next);
        size_t reach = 2 * pages->request.k;
        reach = reach < given + PAGES_FIRST(k) ? given + PAGES_FIRST(k) : reach;
        if (scratch == NULL)
            scratch = scratch_take(pages->db);
        code = scratch == NULL ? OMENDB_NOMEM
                               : pages_search(pages, scratch, reach < rows ? reach : rows);
    }
    scratch_give(pages->db, scratch);
    return code;
}

static int pages_begin_next(omendb_pages *pages)
{
    if (!pages->cursor.ended)
        return OMENDB_OK;
    return error_set(OMENDB_MISUSE, "the transaction of these pages has ended");
}

OMENDB_INTERNAL int pages_next(omendb_pages *pages, uint64_t deadline_us, size_t k, uint64_t *ids,
                               float *distances, size_t *count)
{
    const int few = atomic_load(&pages->db->open_cursors) <= PAGES_IN_RESERVE;
    int code = pages_begin_next(pages);
    pages->request.deadline_us = deadline_us;
    if (few)
        memory_begin_reading();
    if (code == OMENDB_OK)
        code = pages_fill(pages, k);
    if (few)
        memory_end_reading();
    if (code != OMENDB_OK)
        return code;
    for (; *count < k && pages->next < pages->count; pages->next++) {
        const struct search_hit *hit = &pages->hits[pages->next];
        ids[*count] = hit->id;
        if (distances != NULL)
            distances[*count] = hit->distance;
        ++*count;
    }
    return *count == 0 ? OMENDB_DONE : OMENDB_OK;
}

/* ------------------------------------------------------------------ end */

OMENDB_INTERNAL void pages_free(omendb_pages *pages)
{
    struct memory *memory = &pages->db->memory;
    pages->magic = 0;
    if (pages->txn != NULL && !pages->cursor.ended)
        txn_remove_cursor(pages->txn, &pages->cursor);
    if (pages->version != NULL)
        version_release(pages->version);
    memory_free(memory, pages->vector, pages->collection->vector_bytes);
    memory_free(memory, pages->excluded, pages->request.excluded_count * sizeof *pages->excluded);
    memory_free(memory, pages->hits, pages->room * sizeof *pages->hits);
    memory_free(memory, pages->seen, pages->seen_room * sizeof *pages->seen);
    filter_free(pages->predicate.filter);
    collection_release(pages->collection);
    memory_free(memory, pages, sizeof *pages);
}

OMENDB_INTERNAL int pages_is_valid(const omendb_pages *pages)
{
    return pages != NULL && handle_is(pages, PAGES_MAGIC);
}

OMENDB_INTERNAL omendb *pages_database(const omendb_pages *pages)
{
    return pages->db;
}

OMENDB_INTERNAL const struct search_request *pages_request(const omendb_pages *pages)
{
    return &pages->request;
}

#undef PAGES_FIRST
#undef PAGES_IN_RESERVE
