/* calibration.h: the curve of recall by effort, of a segment or of a collection.
 *
 * A curve is a list of efforts that were tried on a sample of queries which the graph did not hold,
 * each with the mean recall of the sample and a bound below which the mean of all such queries lies
 * with a probability of 5 %. Entries are grouped by k, ascending; within a group effort and bound
 * ascend. A wanted recall is looked up by the bound, never by the mean.
 *
 * The effort is `ef` and the stretch of a walk's adaptive stop (0: it stops by ef alone). */
#ifndef OMENDB_CALIBRATION_H
#define OMENDB_CALIBRATION_H

#include "internal.h"

#define CALIBRATION_MAX_ENTRIES 32
#define CALIBRATION_LARGEST_K   100 /* of the ladder */
#define CALIBRATION_LARGEST_EF  100000

struct calibration_entry {
    uint32_t k;
    uint32_t ef;
    float stretch;
    float mean;
    float low; /* the lower 95 % bound */
};

struct calibration {
    uint32_t rows;     /* of the graph when it was measured */
    uint32_t queries;  /* in the largest sample */
    uint64_t all_rows; /* a collection's: stored rows when it was measured; a segment's: 0 */
    uint32_t count;    /* entries; 0: there is no curve */
    struct calibration_entry entries[CALIBRATION_MAX_ENTRIES];
    struct calibration *older; /* private to a collection */
};

/* The efforts to try, ascending by k, then by effort: fills k, ef and stretch of number `index`, or
 * returns 0 past the last one. */
OMENDB_INTERNAL int calibration_rung(size_t index, struct calibration_entry *entry);
/* Adds a rung with the recalls that it gave, one a query; calls must follow the ladder. */
OMENDB_INTERNAL void calibration_add(struct calibration *calibration,
                                     const struct calibration_entry *rung, const float *recalls,
                                     uint32_t queries);
/* 1 when a greater effort for this k could tell nothing more. */
OMENDB_INTERNAL int calibration_is_enough(const struct calibration *calibration, uint32_t k);

/* An answer of a curve. */
struct calibration_answer {
    size_t ef;
    float stretch;
    float recall;      /* promised: mean over queries like the sample's */
    uint32_t warnings; /* OMENDB_EXPLAIN_* */
};
/* The least effort whose bound reaches `recall`, or the greatest one with a warning. The curve is
 * that of the smallest k which is not below the one asked; beyond the largest, ef grows with k. */
OMENDB_INTERNAL void calibration_find_effort(const struct calibration *calibration, size_t k,
                                             float recall, struct calibration_answer *answer);
/* What an ef without a stretch promises. */
OMENDB_INTERNAL void calibration_find_recall(const struct calibration *calibration, size_t k,
                                             size_t ef, struct calibration_answer *answer);

/* Bytes on disk (format.h); 0 without a curve. A multiple of 8. */
OMENDB_INTERNAL size_t calibration_bytes(const struct calibration *calibration);
OMENDB_INTERNAL void calibration_encode(const struct calibration *calibration, uint8_t *bytes);
/* Whether every number is in its range and entries ascend. */
OMENDB_INTERNAL int calibration_is_legal(const struct calibration *calibration);
/* Whether a section, or an entry of the manifest, may have this length. */
OMENDB_INTERNAL int calibration_length_is_legal(uint64_t length);
/* 0, and no entries, where the bytes are not those of a legal curve. */
OMENDB_INTERNAL int calibration_decode(struct calibration *calibration, const uint8_t *bytes,
                                       uint64_t length);

#endif
