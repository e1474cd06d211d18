/* rows.h: cursors. */
#ifndef OMENDB_ROWS_H
#define OMENDB_ROWS_H

#include "database.h"

/* filter: NULL: all; held until rows_free. */
OMENDB_INTERNAL int rows_open(struct collection *collection, omendb_txn *txn,
                              const omendb_filter *filter, uint64_t from, uint64_t to,
                              omendb_rows **rows);
/* OMENDB_INVALID, without a sentence: the vector cannot be given as this type. */
OMENDB_INTERNAL int rows_next(omendb_rows *rows, uint64_t *id, int vector_type, void *vector);
/* Of the record that rows_next gave last; NULL: it has none. Borrowed until the next step.
 * OMENDB_MISUSE: there is none such. */
OMENDB_INTERNAL int rows_document(const omendb_rows *rows, const uint8_t **document);
OMENDB_INTERNAL void rows_free(omendb_rows *rows);
OMENDB_INTERNAL int rows_is_valid(const omendb_rows *rows);
OMENDB_INTERNAL omendb *rows_database(const omendb_rows *rows);
OMENDB_INTERNAL const struct collection *rows_collection(const omendb_rows *rows);

#endif
