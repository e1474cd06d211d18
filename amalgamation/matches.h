/* matches.h: of which rows of one source a search has asked its predicate, and the answers, so that
 * none is asked of twice: a look at a sample, a walk and the scan after it meet the same rows.
 *
 * Two sets of rows, cleared when the next source begins: the words that were touched, or all where
 * those are more than an eighth. The answers for queries that share a predicate, a version and a
 * commit are the same: they are kept from one to the next, by the number of their batch. One thread
 * at a time. */
#ifndef OMENDB_MATCHES_H
#define OMENDB_MATCHES_H

#include "internal.h"
#include "memory.h"

struct matches {
    struct memory *memory;
    uint64_t *asked;  /* a bit a row */
    uint64_t *chosen; /* of those, the rows that match */
    size_t word_count;
    uint32_t *touched; /* the words of which a row was asked, unless it is full */
    size_t touched_count;
    uint64_t asked_rows, chosen_rows; /* since matches_begin */
    uint64_t batch;                   /* of whose queries these are the answers; 0: of one query */
    const void *source;               /* and of which memtable or segment, */
    uint32_t rows;                    /* so many of its rows */
    int complete;                     /* all visible rows that match are chosen */
};

/* Forgets all, and makes room for the answers of so many rows. OMENDB_NOMEM. */
OMENDB_INTERNAL int matches_begin(struct matches *matches, uint32_t rows);
/* From now on these are the answers of the source's first rows to a batch; 0: to one query. */
OMENDB_INTERNAL void matches_belong(struct matches *matches, uint64_t batch, const void *source,
                                    uint32_t rows);
/* Whether they are: then matches_begin is not due. */
OMENDB_INTERNAL int matches_continue(const struct matches *matches, uint64_t batch,
                                     const void *source, uint32_t rows);
OMENDB_INTERNAL void matches_destroy(struct matches *matches); /* a zeroed one is OK */
/* Rows 64 * word + i, of which bit i is set in `asked`, and in `chosen` where they match. */
OMENDB_INTERNAL void matches_note(struct matches *matches, uint32_t word, uint64_t asked,
                                  uint64_t chosen);

static inline int matches_knows(const struct matches *matches, uint32_t row)
{
    return (int)(matches->asked[row / 64] >> (row % 64) & 1);
}

static inline int matches_has(const struct matches *matches, uint32_t row)
{
    return (int)(matches->chosen[row / 64] >> (row % 64) & 1);
}

#endif
