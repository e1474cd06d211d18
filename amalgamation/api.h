/* api.h: what the public calls share: checks of arguments, and the state that a call reads. Each
 * check sets the sentence. */
#ifndef OMENDB_API_H
#define OMENDB_API_H

#include "database.h"
#include "groups.h"

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

/* The name of a field: valid UTF-8, 1 to OMENDB_FIELD_MAX bytes. */
OMENDB_INTERNAL int api_field(const char *name, const char *what);

/* The state that a call reads: the transaction's, or the newest. */
OMENDB_INTERNAL struct version *api_version(omendb_collection *collection, const omendb_txn *txn,
                                            uint64_t *commit);
/* The stored vector of a record, and its document (NULL: it has none); both point into `version` or
 * the transaction. NULL for either: it is not asked for. */
OMENDB_INTERNAL int api_find_record(struct collection *collection, const struct version *version,
                                    uint64_t commit, const omendb_txn *txn, uint64_t id,
                                    const uint8_t **vector, const uint8_t **document);
/* The id that has a key. */
OMENDB_INTERNAL int api_find_key(struct collection *collection, const struct version *version,
                                 uint64_t commit, const omendb_txn *txn, const char *key,
                                 uint64_t *id);

/* ---- api_query.c */
/* A query in the engine's terms, with what belongs to it. Does not move once it was asked: the
 * request points into it. */
struct api_asked {
    struct memory *memory;
    struct search_predicate predicate;
    struct search_request request;
    uint64_t *excluded; /* of the request */
    size_t excluded_room;
};
/* one: of one query, with its own vector; else of a batch of vectors. */
OMENDB_INTERNAL int api_check_query(omendb_collection *collection, const omendb_txn *txn,
                                    const omendb_query *query, int one);
/* All but version, commit and vector. The deadline begins now. */
OMENDB_INTERNAL void api_ask(omendb_collection *collection, omendb_txn *txn,
                             const omendb_query *query, struct api_asked *asked);
/* Sets vector and exclusions, once version and commit are known; may be called again. The vector
 * lies in the scratch, the version or the transaction. api_asked_end also after a failure. */
OMENDB_INTERNAL int api_resolve(const omendb_query *query, const omendb_txn *txn,
                                struct scratch *scratch, struct api_asked *asked);
OMENDB_INTERNAL void api_asked_end(struct api_asked *asked);
/* By the clock of the vfs; 0: none. */
OMENDB_INTERNAL uint64_t api_deadline(const omendb *db, uint64_t timeout_us);
/* As work_relieve, but not beyond the deadline of the search: *code says so. */
OMENDB_INTERNAL int api_relieve_search(omendb *db, const struct search_request *request,
                                       struct work_wait *wait, int *code);

#endif
