/* matches.h: of which rows of one source a search has asked its predicate, and the answers, so that
 * none is asked of twice: a look at a sample, a walk and the scan after it meet the same rows.
 *
 * Two bits a row, cleared when the next source begins: the words that were touched, or all where
 * those are more than an eighth. One thread at a time. */
#ifndef OMENDB_MATCHES_H
#define OMENDB_MATCHES_H

#include "internal.h"
#include "memory.h"

struct matches {
    struct memory *memory;
    uint64_t *words; /* of 32 rows each: the lower half tells which were asked of, the upper half
                      * which of them match */
    size_t word_count;
    uint32_t *touched; /* the words that are not zero, unless it is full */
    size_t touched_count;
    uint64_t asked, matched; /* rows since matches_begin */
};

/* Forgets all, and makes room for the answers of so many rows. OMENDB_NOMEM. */
OMENDB_INTERNAL int matches_begin(struct matches *matches, uint32_t rows);
OMENDB_INTERNAL void matches_destroy(struct matches *matches); /* a zeroed one is OK */
OMENDB_INTERNAL void matches_note(struct matches *matches, uint32_t row, int answer);

/* The answer that was noted, or -1. */
static inline int matches_answer(const struct matches *matches, uint32_t row)
{
    const uint64_t word = matches->words[row / 32] >> (row % 32);
    return (word & 1) == 0 ? -1 : (int)(word >> 32 & 1);
}

#endif
