/* facets.h: how many records have each value of a field. */
#ifndef OMENDB_FACETS_H
#define OMENDB_FACETS_H

#include "database.h"

/* Counts over what the request sees and matches: search_each_location. limit: values that are kept,
 * 0: all. The object is of the caller alone; facets_free. */
OMENDB_INTERNAL int facets_count(const struct search_request *request, const char *field,
                                 size_t limit, omendb_facets **facets);
/* OMENDB_DONE: there is no further value. */
OMENDB_INTERNAL int facets_next(omendb_facets *facets, omendb_facet *facet);
OMENDB_INTERNAL void facets_totals(const omendb_facets *facets, uint64_t *records, uint64_t *nulls,
                                   uint64_t *values);
OMENDB_INTERNAL void facets_free(omendb_facets *facets);
OMENDB_INTERNAL int facets_is_valid(const omendb_facets *facets);
OMENDB_INTERNAL omendb *facets_database(const omendb_facets *facets);

#endif
