/* groups.h: the nearest records of which no more than so many have the same value of a field. */
#ifndef OMENDB_GROUPS_H
#define OMENDB_GROUPS_H

#include "database.h"

/* As search_run, where request->group_by is NULL. Else of the nearest records, in their order, each
 * that does not make the records of one of its values more than group_size. */
OMENDB_INTERNAL int groups_run(const struct search_request *request, struct scratch *scratch,
                               uint64_t *ids, float *distances, size_t *count,
                               omendb_explain *explain);

#endif
