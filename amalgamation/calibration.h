/* calibration.h: the curve of recall by effort, of a segment or of a collection.
 *
 * A curve is a list of efforts that were tried on a sample of queries which the graph did not hold,
 * each with the mean recall of the sample and a bound below which the mean of all such queries lies
 * with a probability of 5 %. Entries are grouped by k, ascending, and for each k by kind: first
 * efforts that are an ef alone (stretch 0), then those with the stretch of a walk's adaptive stop,
 * whose ef is a cap. Within a group effort, bound and cost ascend; a group may be missing. A wanted
 * recall is looked up by the bound, never by the mean. */
#ifndef OMENDB_CALIBRATION_H
#define OMENDB_CALIBRATION_H

#include "internal.h"

#define CALIBRATION_MAX_ENTRIES 32
#define CALIBRATION_LARGEST_K   100 /* of the ladder */
#define CALIBRATION_LARGEST_EF  100000
/* No ladder comes near, and what is computed with it stays finite. */
#define CALIBRATION_LARGEST_STRETCH 1e6f

struct calibration_entry {
    uint32_t k;
    uint32_t ef;
    float stretch;
    float mean;
    float low;     /* the lower 95 % bound */
    uint32_t cost; /* distances that a query computed in the mean, at least 1 */
};

struct calibration {
    uint32_t rows;     /* of the graph when it was measured */
    uint32_t queries;  /* in the largest sample */
    uint64_t all_rows; /* a collection's: stored rows when it was measured; a segment's: 0 */
    uint32_t count;    /* entries; 0: there is no curve */
    struct calibration_entry entries[CALIBRATION_MAX_ENTRIES];
    struct calibration *older; /* private to a collection */
};

/* The efforts to try, in the order of a curve: fills k, ef and stretch of number `index`, or
 * returns 0 past the last one. by_stretch: whether there are those by stretch, which follow from
 * what the former ones gave, or only by ef, but more of them. */
OMENDB_INTERNAL int calibration_rung(const struct calibration *calibration, size_t index,
                                     int by_stretch, struct calibration_entry *entry);
/* Whether both are of one k and kind. */
OMENDB_INTERNAL int calibration_is_one_group(const struct calibration_entry *a,
                                             const struct calibration_entry *b);
/* Adds a rung, whose cost the caller filled in, with the recalls that it gave, one a query; calls
 * must follow the ladder. */
OMENDB_INTERNAL void calibration_add(struct calibration *calibration,
                                     const struct calibration_entry *rung, const float *recalls,
                                     uint32_t queries);
/* 1 when this rung could tell nothing more. */
OMENDB_INTERNAL int calibration_is_enough(const struct calibration *calibration,
                                          const struct calibration_entry *rung);

/* An answer of a curve. */
struct calibration_answer {
    size_t k; /* to walk for: not below the one asked */
    size_t ef;
    float stretch;
    size_t work;       /* the ef alone that finds as much: a walk is at most about as long */
    float recall;      /* promised: mean over queries like the sample's */
    float cost;        /* distances a query in the mean; 0: no curve told */
    uint32_t warnings; /* OMENDB_EXPLAIN_* */
};
/* The effort by stretch or by ef whose bound reaches `recall` at the least cost, or the one that
 * promises most, with a warning. Below the smallest measured k the effort is that of this k; beyond
 * the largest it is an ef, which grows with k. */
OMENDB_INTERNAL void calibration_find_effort(const struct calibration *calibration, size_t k,
                                             float recall, struct calibration_answer *answer);
/* An ef for who has no curve: on the safe side, but a guess. */
OMENDB_INTERNAL size_t calibration_guess_ef(size_t k, float recall);
/* What an ef, or a stretch with ef as its cap, promises: 0 where the curve does not tell. */
OMENDB_INTERNAL void calibration_find_recall(const struct calibration *calibration, size_t k,
                                             size_t ef, float stretch,
                                             struct calibration_answer *answer);

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
