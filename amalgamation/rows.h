/* rows.h: cursors. */
#ifndef OMENDB_ROWS_H
#define OMENDB_ROWS_H

#include "database.h"

OMENDB_INTERNAL int rows_open(struct collection *collection, omendb_txn *txn, uint64_t from,
                              uint64_t to, omendb_rows **rows);
OMENDB_INTERNAL int rows_next(omendb_rows *rows, uint64_t *id, int vector_type, void *vector);
OMENDB_INTERNAL void rows_free(omendb_rows *rows);
OMENDB_INTERNAL int rows_is_valid(const omendb_rows *rows);
OMENDB_INTERNAL omendb *rows_database(const omendb_rows *rows);

#endif
