/* search_each.c: going through all records that match, in no order of distance.
 *
 * Source by source, the rows that the columns list, or else all, are asked one by one; then the
 * transaction's own records. Nothing of what is asked is kept, as each row is met once. */
#include "search_internal.h"

/* Who gets what matches. */
struct search_receiver {
    int (*each)(void *context, const struct location *location, const struct txn_write *own);
    void *context;
};

static int search_hand_out(const struct search_source *source, uint32_t row,
                           const struct search_receiver *receiver)
{
    const struct location location = {source->memtable, source->segment, source->overlay, row};
    if (!search_visible(source, row) ||
        (source->predicate != NULL && !search_row_matches(source, row)))
        return OMENDB_OK;
    return receiver->each(receiver->context, &location, NULL);
}

/* The rows that are listed, or all. */
static int search_each_row(struct search_source *source, const struct search_receiver *receiver)
{
    uint64_t *bits = NULL;
    int exact = 0, code = OMENDB_OK;
    if (search_most(source) < source->row_limit)
        code = search_list(source, &bits, &exact);
    if (exact && source->predicate->match == NULL && overlay_count(source->overlay) == 0)
        source->predicate = NULL; /* nothing is left to ask */
    for (uint32_t word = 0; word <= source->row_limit / 64 && code == OMENDB_OK; word++) {
        uint64_t left = bits == NULL ? UINT64_MAX : bits[word];
        for (; left != 0 && code == OMENDB_OK; left &= left - 1) {
            const uint32_t row = word * 64 + graph_lowest_bit(left);
            if (row < source->row_limit)
                code = search_hand_out(source, row, receiver);
        }
    }
    return code == OMENDB_OK && source->plan != NULL ? source->plan->code : code;
}

/* Memtable or segment number `index`, of which search_each_row is to hand out what matches. */
static int search_begin_each(const struct search_request *request, uint32_t index,
                             struct scratch *scratch, struct search_source *source)
{
    const uint32_t memtables = request->version->memtable_count;
    if (index < memtables)
        search_memtable_source(request, index, source);
    else
        search_segment_source(request, index - memtables, source);
    source->hiding = request->txn != NULL ? request : NULL;
    source->predicate = request->predicate;
    return request->predicate != NULL && request->predicate->filter != NULL
               ? search_make_plan_of_filter(source, scratch->memory, &scratch->answers.plan)
               : OMENDB_OK;
}

OMENDB_INTERNAL int search_each_of_few(const struct search_request *request, uint32_t index,
                                       uint32_t most,
                                       int (*each)(void *context, const struct location *location,
                                                   const struct txn_write *own),
                                       void *context, int *few)
{
    const struct search_receiver receiver = {each, context};
    struct scratch *scratch = scratch_take(request->collection->db);
    struct search_source source;
    *few = 0;
    if (scratch == NULL)
        return OMENDB_NOMEM;
    int code = search_begin_each(request, index, scratch, &source);
    *few = code == OMENDB_OK && search_most(&source) <= most;
    if (*few)
        code = search_each_row(&source, &receiver);
    scratch_give(request->collection->db, scratch);
    return code;
}

OMENDB_INTERNAL int search_each_location(const struct search_request *request,
                                         int (*each)(void *context, const struct location *location,
                                                     const struct txn_write *own),
                                         void *context)
{
    const struct version *version = request->version;
    const struct search_receiver receiver = {each, context};
    struct scratch *scratch = scratch_take(request->collection->db);
    struct search_source source;
    int code = scratch == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (uint32_t i = 0; i < version->memtable_count + version->segment_count && code == OMENDB_OK;
         i++) {
        code = search_begin_each(request, i, scratch, &source);
        if (code == OMENDB_OK)
            code = search_each_row(&source, &receiver);
    }
    for (size_t i = 0; request->txn != NULL && i < request->txn->write_count && code == OMENDB_OK;
         i++) {
        const struct txn_write *write = &request->txn->writes[i];
        const struct location none = {NULL, NULL, NULL, 0};
        if (write->collection == request->collection && write->vector != NULL &&
            search_record_matches(request->predicate, write->id, write->document))
            code = each(context, &none, write);
    }
    scratch_give(request->collection->db, scratch);
    return code;
}

/* Who gets the ids of what matches. */
struct search_id_receiver {
    int (*each)(void *context, uint64_t id);
    void *context;
};

static int search_tell_id(void *context, const struct location *location,
                          const struct txn_write *own)
{
    const struct search_id_receiver *receiver = context;
    uint64_t id = own != NULL ? own->id : 0;
    int code = own != NULL ? OMENDB_OK : location_id(location, &id);
    return code == OMENDB_OK ? receiver->each(receiver->context, id) : code;
}

OMENDB_INTERNAL int search_each_match(const struct search_request *request,
                                      int (*each)(void *context, uint64_t id), void *context)
{
    struct search_id_receiver receiver = {each, context};
    return search_each_location(request, search_tell_id, &receiver);
}
