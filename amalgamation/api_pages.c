/* api_pages.c: the public calls that give the hits of a query page by page. */
#include "api.h"
#include "lifecycle.h"
#include "pages.h"

static int api_check_pages(omendb_collection *collection, const omendb_txn *txn,
                           const omendb_query *query)
{
    int code = api_check_query(collection, txn, query, 1);
    if (code == OMENDB_OK && query->group_by != NULL)
        return error_set(OMENDB_UNSUPPORTED,
                         "query.group_by is set: groups are not given page by page");
    return code;
}

/* Once; after OMENDB_NOMEM it may be tried again. */
static int api_try_pages(omendb_collection *collection, omendb_txn *txn, const omendb_query *query,
                         struct api_asked *asked, omendb_pages **pages)
{
    omendb *db = collection->db;
    struct scratch *scratch = scratch_take(db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    struct version *version = api_version(collection, txn, &asked->request.commit);
    asked->request.version = version;
    int code = api_resolve(query, txn, scratch, asked);
    if (code == OMENDB_OK)
        code = pages_open(&asked->request, txn, version, pages);
    if (code != OMENDB_OK)
        version_release(version);
    api_asked_end(asked);
    scratch_give(db, scratch);
    return code;
}

OMENDB_API int omendb_pages_open(omendb_collection *collection, omendb_txn *txn,
                                 const omendb_query *query, omendb_pages **pages)
{
    struct api_asked asked;
    struct work_wait wait = {0};
    if (pages == NULL)
        return api_null("pages");
    *pages = NULL;
    if (query == NULL)
        return api_null("query");
    int code = api_struct_read(query, sizeof *query, "query");
    if (code != OMENDB_OK)
        return code;
    omendb_query terms = *query;
    terms.struct_size = sizeof terms;
    terms.timeout_us = 0;
    terms.explain = NULL;
    code = api_check_pages(collection, txn, &terms);
    if (code != OMENDB_OK)
        return code;
    api_ask(collection, txn, &terms, &asked);
    do {
        code = api_try_pages(collection, txn, &terms, &asked, pages);
    } while (api_relieve_search(collection->db, &asked.request, &wait, &code));
    return code;
}

OMENDB_API int omendb_pages_next(omendb_pages *pages, size_t k, uint64_t timeout_us, uint64_t *ids,
                                 float *distances, size_t *count)
{
    struct work_wait wait = {0};
    if (count == NULL || ids == NULL)
        return api_null(count == NULL ? "count" : "ids");
    *count = 0;
    if (!pages_is_valid(pages))
        return error_set(OMENDB_MISUSE, "pages is not an open handle");
    omendb *db = pages_database(pages);
    int code = api_database(db);
    if (code != OMENDB_OK)
        return code;
    if (k == 0)
        return error_set(OMENDB_INVALID, "k is 0; a page has at least 1 hit");
    code = quota_take_queries(pages_request(pages)->collection, 1);
    if (code != OMENDB_OK)
        return code;
    const uint64_t deadline_us = api_deadline(db, timeout_us);
    do {
        code = pages_next(pages, deadline_us, k, ids, distances, count);
    } while (api_relieve_search(db, pages_request(pages), &wait, &code));
    return code;
}

OMENDB_API void omendb_pages_close(omendb_pages *pages)
{
    if (!pages_is_valid(pages))
        return;
    omendb *db = pages_database(pages);
    if (db->process != platform_process())
        return;
    pages_free(pages);
    atomic_fetch_sub(&db->open_cursors, 1);
    database_child_done(db);
}
