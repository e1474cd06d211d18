/* api_facets.c: the public calls that count the values of a field. */
#include "api.h"
#include "facets.h"
#include "lifecycle.h"

#include <string.h>

static int api_check_facets(omendb_collection *collection, const omendb_txn *txn,
                            const omendb_filter *filter, const char *field)
{
    int code = api_reading(collection, txn);
    if (code == OMENDB_OK)
        code = api_filter(collection->db, filter);
    if (code != OMENDB_OK)
        return code;
    if (field == NULL)
        return api_null("field");
    if (strcmp(field, "_id") == 0 || strcmp(field, "_key") == 0)
        return error_set(OMENDB_INVALID, "field is %s, of which no two records have the same",
                         field);
    return api_field(field, "field");
}

OMENDB_API int omendb_facets_open(omendb_collection *collection, omendb_txn *txn,
                                  const omendb_filter *filter,
                                  int (*match)(void *match_context, uint64_t id), void *context,
                                  const char *field, size_t limit, omendb_facets **facets)
{
    const struct search_predicate predicate = {
        .match = match, .context = context, .filter = filter};
    struct work_wait wait = {0};
    struct search_request request = {.k = 0};
    if (facets == NULL)
        return api_null("facets");
    *facets = NULL;
    int code = api_check_facets(collection, txn, filter, field);
    if (code == OMENDB_OK)
        code = quota_take_queries(collection->collection, 1);
    if (code != OMENDB_OK)
        return code;
    omendb *db = collection->db;
    request.collection = collection->collection;
    request.txn = txn != NULL && txn->write_count != 0 ? txn : NULL;
    request.predicate = match != NULL || filter != NULL ? &predicate : NULL;
    do {
        struct version *version = api_version(collection, txn, &request.commit);
        request.version = version;
        code = facets_count(&request, field, limit, facets);
        version_release(version);
    } while (code == OMENDB_NOMEM && work_relieve(db, &wait));
    if (code != OMENDB_OK)
        return code;
    atomic_fetch_add(&db->children, 1);
    atomic_fetch_add(&db->open_cursors, 1);
    return OMENDB_OK;
}

static int api_open_facets(const omendb_facets *facets)
{
    return facets_is_valid(facets) ? api_database(facets_database(facets))
                                   : error_set(OMENDB_MISUSE, "facets is not an open handle");
}

OMENDB_API int omendb_facets_next(omendb_facets *facets, omendb_facet *facet)
{
    int code = api_open_facets(facets);
    if (code != OMENDB_OK)
        return code;
    if (facet == NULL)
        return api_null("facet");
    code = api_struct(facet->struct_size, sizeof *facet, "facet");
    return code == OMENDB_OK ? facets_next(facets, facet) : code;
}

OMENDB_API int omendb_facets_totals(omendb_facets *facets, uint64_t *records, uint64_t *nulls,
                                    uint64_t *values)
{
    int code = api_open_facets(facets);
    if (code == OMENDB_OK)
        facets_totals(facets, records, nulls, values);
    return code;
}

OMENDB_API void omendb_facets_close(omendb_facets *facets)
{
    if (!facets_is_valid(facets))
        return;
    omendb *db = facets_database(facets);
    if (db->process != platform_process())
        return;
    facets_free(facets);
    atomic_fetch_sub(&db->open_cursors, 1);
    database_child_done(db);
}
