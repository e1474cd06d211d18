/* hash.h: a hash that whoever chooses what is hashed cannot steer: of keys, values and names, which
 * come from the users of those who link us. With an unkeyed one a few thousand keys of one hash are
 * quickly computed, and each addition then looks at all before it.
 *
 * SipHash (Aumasson, Bernstein: SipHash: a fast short-input PRF, 2012) with one round a word and
 * three at the end, as its authors propose for hash tables. The seed is of one opening of a
 * database; what is kept in files by such a hash has the seed beside it (SECTION_KEY_HASHES), so
 * that files of several openings serve one collection and nothing else must be known to read them.
 *
 * Measured on a Xeon (Sapphire Rapids), one after the other: keys of 10 bytes take 13 ns, of 20
 * bytes 15, of 100 bytes 37; a hash of multiplications without a seed takes 12, 12 and 34.
 *
 * Rejected: one seed a database, in the manifest: a salvage without a manifest would have lost the
 * index of keys, and a backup would share it with its source. */
#ifndef OMENDB_HASH_H
#define OMENDB_HASH_H

#include "internal.h"

#define HASH_SEED_BYTES 16 /* in files: both halves, little-endian */

struct hash_seed {
    uint64_t half[2];
};
_Static_assert(sizeof(struct hash_seed) == HASH_SEED_BYTES, "a seed is read by copying");

OMENDB_INTERNAL void hash_make_seed(struct hash_seed *seed); /* random */

OMENDB_INTERNAL uint64_t hash_bytes(const struct hash_seed *seed, const uint8_t *bytes,
                                    size_t size);
OMENDB_INTERNAL uint64_t hash_number(const struct hash_seed *seed, uint64_t number);
/* With so many rounds a word and at the end: SipHash-2-4 is the one that test vectors are of. */
OMENDB_INTERNAL uint64_t hash_siphash(const struct hash_seed *seed, const uint8_t *bytes,
                                      size_t size, int word_rounds, int end_rounds);

#endif
