/* pages.h: the hits of one query, page by page. */
#ifndef OMENDB_PAGES_H
#define OMENDB_PAGES_H

#include "database.h"

/* request: with version and vector; what it points at is copied, but for the filter, which is
 * held, and the transaction. txn: as in the call, or NULL. The version is taken over on success. */
OMENDB_INTERNAL int pages_open(const struct search_request *request, omendb_txn *txn,
                               struct version *version, omendb_pages **pages);
/* The next `k` hits; fewer only at the end, where *count 0 comes with OMENDB_DONE. distances: NULL,
 * or as many. */
OMENDB_INTERNAL int pages_next(omendb_pages *pages, uint64_t deadline_us, size_t k, uint64_t *ids,
                               float *distances, size_t *count);
OMENDB_INTERNAL void pages_free(omendb_pages *pages);
OMENDB_INTERNAL int pages_is_valid(const omendb_pages *pages);
OMENDB_INTERNAL omendb *pages_database(const omendb_pages *pages);
OMENDB_INTERNAL const struct search_request *pages_request(const omendb_pages *pages);

#endif
