/* records.h: a batch of records on its way to a commit. */
#ifndef OMENDB_RECORDS_H
#define OMENDB_RECORDS_H

#include "database.h"

struct records {
    struct change change; /* its arrays belong to this object */
    uint8_t *vectors;
    uint32_t *document_sizes; /* NULL: no record has a document */
    uint8_t *documents;
    size_t document_capacity;
    uint32_t capacity;
};

/* What is given, in one of two forms. */
struct records_given {
    size_t count;
    const uint64_t *ids; /* NULL, or all OMENDB_ID_AUTO: automatic */
    const void *vectors; /* one after the other; NULL: to be deleted */
    uint32_t type;
    const uint8_t *const *documents; /* of each, NULL: none; NULL: of none */
    const uint8_t *records; /* NULL, or `count` omendb_record in place of all of these, at each */
    size_t stride;          /* so many bytes */
};

/* Whether memory_limit has room for a batch that is added or put without a transaction, if all else
 * made room for it: OMENDB_NOMEM says that trying is in vain. One over the limit of batches is
 * OMENDB_OK here: records_prepare refuses it. */
OMENDB_INTERNAL int records_can_fit(const struct collection *collection, uint32_t kind,
                                    const struct records_given *given);
/* Whether it has room now; trying later may help. Not asked where no checkpoint makes room. */
OMENDB_INTERNAL int records_fit_now(const struct collection *collection, uint32_t kind,
                                    const struct records_given *given);
/* Converts and checks. records_destroy also after a failure. */
OMENDB_INTERNAL int records_prepare(struct collection *collection, uint32_t kind,
                                    const struct records_given *given, struct records *records);
/* Fields that a caller may not write: those named _id and _key, which in filters are the record's.
 * What `before` (NULL: nothing) has with the same value may stay. The sentence begins with
 * "metadata: ". Records that are stored already are not asked. */
OMENDB_INTERNAL int records_check_names(const uint8_t *before, const uint8_t *document);
/* The ids that are given. */
OMENDB_INTERNAL void records_copy_ids(const struct records_given *given, uint64_t *ids);
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
