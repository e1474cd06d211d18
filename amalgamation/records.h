/* records.h: a batch of records on its way to a commit. */
#ifndef OMENDB_RECORDS_H
#define OMENDB_RECORDS_H

#include "database.h"

struct records {
    struct change change; /* its arrays belong to this object */
    uint8_t *vectors;
    uint32_t capacity;
};

/* Whether memory_limit has room for a batch that is added or put without a transaction, if all else
 * made room for it: OMENDB_NOMEM says that trying is in vain. One over the limit of batches is
 * OMENDB_OK here: records_prepare refuses it. ids: as given. */
OMENDB_INTERNAL int records_can_fit(const struct collection *collection, uint32_t kind,
                                    size_t count, const uint64_t *ids);
/* Whether it has room now; trying later may help. Not asked where no checkpoint makes room. */
OMENDB_INTERNAL int records_fit_now(const struct collection *collection, uint32_t kind,
                                    size_t count, const uint64_t *ids);
/* Converts and checks. ids NULL, or all OMENDB_ID_AUTO: automatic. records_destroy also after a
 * failure. */
OMENDB_INTERNAL int records_prepare(struct collection *collection, uint32_t kind, size_t count,
                                    const uint64_t *ids, const void *vectors, uint32_t type,
                                    struct records *records);
OMENDB_INTERNAL int records_commit(struct records *records, omendb_txn *txn);
OMENDB_INTERNAL void records_destroy(struct records *records);

/* Of no batch: the sentence names no row. */
#define RECORDS_ALONE UINT64_MAX

/* Whether it is one of omendb_scalar. */
OMENDB_INTERNAL int records_check_type(uint32_t type);
/* OMENDB_INVALID: stored vectors cannot be given as `type`. */
OMENDB_INTERNAL int records_refuse_type(const struct collection *collection, int type);
/* One vector to the stored type; the sentence names `row`. */
OMENDB_INTERNAL int records_convert(const struct collection *collection, const void *vector,
                                    uint32_t type, void *out, uint64_t row);

#endif
