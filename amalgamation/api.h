/* api.h: what the public calls share: checks of arguments, and the state that a call reads. Each
 * check sets the sentence. */
#ifndef OMENDB_API_H
#define OMENDB_API_H

#include "database.h"

/* OMENDB_MISUSE: `what` is NULL. */
OMENDB_INTERNAL int api_null(const char *what);
/* A struct that the caller fills or has filled, made with the _INIT of this header or of a later,
 * larger one. No smaller size exists yet. */
OMENDB_INTERNAL int api_struct(size_t size, size_t expected, const char *what);
/* A struct that is read: what a later header has on top must be 0, for it cannot be heeded. */
OMENDB_INTERNAL int api_struct_read(const void *given, size_t expected, const char *what);

/* An open handle, of this process, that can be used. */
OMENDB_INTERNAL int api_database(const omendb *db);
OMENDB_INTERNAL int api_collection(const omendb_collection *handle);
/* NULL, or an open transaction of the same database. */
OMENDB_INTERNAL int api_txn(const omendb_collection *handle, const omendb_txn *txn);
OMENDB_INTERNAL int api_reading(omendb_collection *collection, const omendb_txn *txn);
OMENDB_INTERNAL int api_writing(const omendb_collection *handle, const omendb_txn *txn);

/* NULL, or a filter of the same database. */
OMENDB_INTERNAL int api_filter(const omendb *db, const omendb_filter *filter);

/* Valid UTF-8 without control characters, 1 to 255 bytes. */
OMENDB_INTERNAL int api_name(const char *name, const char *whose);

/* The state that a call reads: the transaction's, or the newest. */
OMENDB_INTERNAL struct version *api_version(omendb_collection *collection, const omendb_txn *txn,
                                            uint64_t *commit);
/* The stored vector of a record, and its document (NULL: it has none; document NULL: not asked
 * for); both point into `version` or the transaction. */
OMENDB_INTERNAL int api_find_record(struct collection *collection, const struct version *version,
                                    uint64_t commit, const omendb_txn *txn, uint64_t id,
                                    const uint8_t **vector, const uint8_t **document);
/* The id that has a key. */
OMENDB_INTERNAL int api_find_key(struct collection *collection, const struct version *version,
                                 uint64_t commit, const omendb_txn *txn, const char *key,
                                 uint64_t *id);

#endif
