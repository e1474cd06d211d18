/* api_matching.c: the public calls that count and delete the records that match a condition. */
#include "api.h"
#include "lifecycle.h"
#include "records.h"

/* What a deletion does when others changed what it chose: choose again, so often. */
#define API_MATCHING_TRIES 16

static void api_matching_request(omendb_collection *collection, omendb_txn *txn,
                                 const struct search_predicate *predicate,
                                 struct search_request *request)
{
    *request = (struct search_request){.collection = collection->collection};
    request->txn = txn != NULL && txn->write_count != 0 ? txn : NULL;
    request->predicate = predicate->match != NULL || predicate->filter != NULL ? predicate : NULL;
}

static int api_count_one(void *context, uint64_t id)
{
    (void)id;
    ++*(uint64_t *)context;
    return OMENDB_OK;
}

OMENDB_API int omendb_count_matching(omendb_collection *collection, omendb_txn *txn,
                                     const omendb_filter *filter,
                                     int (*match)(void *match_context, uint64_t id), void *context,
                                     uint64_t *count)
{
    const struct search_predicate predicate = {
        .match = match, .context = context, .filter = filter};
    struct search_request request;
    uint64_t counted = 0;
    if (count == NULL)
        return api_null("count");
    *count = 0;
    int code = api_reading(collection, txn);
    if (code == OMENDB_OK)
        code = api_filter(collection->db, filter);
    if (code == OMENDB_OK)
        code = quota_take_queries(collection->collection, 1);
    if (code != OMENDB_OK)
        return code;
    api_matching_request(collection, txn, &predicate, &request);
    struct version *version = api_version(collection, txn, &request.commit);
    request.version = version;
    code = search_each_match(&request, api_count_one, &counted);
    version_release(version);
    *count = code == OMENDB_OK ? counted : 0;
    return code;
}

/* Ids of the records that are to go. */
struct api_chosen {
    struct memory *memory;
    uint64_t *ids;
    size_t count, capacity;
};

static int api_choose_one(void *context, uint64_t id)
{
    struct api_chosen *chosen = context;
    if (chosen->count == chosen->capacity) {
        const size_t wanted = chosen->capacity + chosen->capacity / 2 + 64;
        uint64_t *ids = memory_resize(chosen->memory, chosen->ids, chosen->capacity * sizeof *ids,
                                      memory_multiply(wanted, sizeof *ids));
        if (ids == NULL)
            return OMENDB_NOMEM;
        chosen->ids = ids;
        chosen->capacity = wanted;
    }
    chosen->ids[chosen->count++] = id;
    return OMENDB_OK;
}

/* Of those chosen at the snapshot none may have changed since. */
static int api_delete_chosen(omendb_collection *collection, omendb_txn *txn, uint64_t snapshot,
                             const struct api_chosen *chosen, uint64_t *deleted)
{
    const struct records_given given = {.count = chosen->count, .ids = chosen->ids};
    struct records records;
    int code = records_prepare(collection->collection, CHANGE_DELETE, &given, &records);
    if (code == OMENDB_OK && txn != NULL)
        code = txn_apply(txn, &records.change);
    else if (code == OMENDB_OK)
        code = commit_changes(collection->db, &records.change, 1, snapshot);
    *deleted = code == OMENDB_OK ? records.change.affected : 0;
    records_destroy(&records);
    return code;
}

/* Once. Without a transaction a snapshot of its own keeps what conflicts are told from. */
static int api_try_delete_matching(omendb_collection *collection, omendb_txn *txn,
                                   const struct search_predicate *predicate, uint64_t *deleted)
{
    struct api_chosen chosen = {.memory = &collection->db->memory};
    struct search_request request;
    omendb_txn *snapshot = NULL;
    int code = txn != NULL ? OMENDB_OK : txn_begin(collection->db, OMENDB_READ_ONLY, &snapshot);
    if (code != OMENDB_OK)
        return code;
    api_matching_request(collection, txn, predicate, &request);
    struct version *version =
        api_version(collection, txn != NULL ? txn : snapshot, &request.commit);
    request.version = version;
    code = search_each_match(&request, api_choose_one, &chosen);
    version_release(version);
    if (code == OMENDB_OK && chosen.count != 0)
        code = api_delete_chosen(collection, txn, request.commit, &chosen, deleted);
    memory_free(chosen.memory, chosen.ids, chosen.capacity * sizeof *chosen.ids);
    if (snapshot != NULL) {
        txn_end(snapshot);
        database_child_done(collection->db);
    }
    return code;
}

/* A filter that failed to compile is NULL, which must not stand for all records here. */
static int api_check_condition(const struct search_predicate *predicate)
{
    return predicate->filter != NULL || predicate->match != NULL
               ? OMENDB_OK
               : error_set(OMENDB_INVALID,
                           "neither filter nor match is given, which would delete all records; a "
                           "filter that matches all is TRUE, or {} in the JSON form");
}

OMENDB_API int omendb_delete_matching(omendb_collection *collection, omendb_txn *txn,
                                      const omendb_filter *filter,
                                      int (*match)(void *match_context, uint64_t id), void *context,
                                      uint64_t *deleted)
{
    const struct search_predicate predicate = {
        .match = match, .context = context, .filter = filter};
    struct work_wait wait = {0};
    uint64_t gone = 0;
    uint32_t conflicts = 0;
    if (deleted != NULL)
        *deleted = 0;
    int code = api_writing(collection, txn);
    if (code == OMENDB_OK)
        code = api_filter(collection->db, filter);
    if (code == OMENDB_OK)
        code = api_check_condition(&predicate);
    if (code == OMENDB_OK)
        code = quota_take_queries(collection->collection, 1);
    if (code != OMENDB_OK)
        return code;
    do {
        code = api_try_delete_matching(collection, txn, &predicate, &gone);
    } while ((code == OMENDB_CONFLICT && txn == NULL && ++conflicts < API_MATCHING_TRIES) ||
             (code == OMENDB_NOMEM && work_relieve(collection->db, &wait)));
    if (code != OMENDB_OK)
        return code;
    if (deleted != NULL)
        *deleted = gone;
    if (txn == NULL)
        work_reclaim(collection->db);
    return OMENDB_OK;
}

#undef API_MATCHING_TRIES
