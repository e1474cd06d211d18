/* codes.h: vectors as one byte an element, for walking the graph.
 *
 * A walk waits for memory; a code is a quarter of an f32 vector, and integers are compared faster.
 * The hits of a walk over codes are compared again with the full vectors, so codes decide what is
 * found, never the distances that are reported.
 *
 *   L2             u8: round((x - low) / step), compared by squared L2
 *   cosine         the same over the vector scaled to length 1, whose squared L2 is 2 * (1 - cos)
 *   inner product  i8: round(x / step), compared by inner product; a query has a step of its own
 *
 * low and step belong to a segment. Values outside of what they cover are saturated, and whoever
 * codes is told when that is too often. Vectors of integers that span no more than 255 are coded
 * with a step of 1 and lose nothing.
 *
 * Rejected: a step for each vector (LVQ, arXiv 2304.04759): the correction terms cost more than the
 * last bit of precision gives, as hits are compared again anyway. */
#ifndef OMENDB_CODES_H
#define OMENDB_CODES_H

#include "internal.h"
#include "kernels.h"
#include "memory.h"
#include "scalar.h"

struct code_format {
    struct scalar_format vectors; /* what is coded: f32, f16 or bf16 */
    float low;
    float step; /* 0: there are no codes */
};

/* 1 for the element types that gain by it, unless a code is no smaller than its vector: in so few
 * dimensions 256 levels tell too few vectors apart, too. */
OMENDB_INTERNAL int codes_apply_to(const struct scalar_format *vectors);

/* Bytes from one code to the next: of whole 32, the elements beyond `dim` are zero. */
OMENDB_INTERNAL size_t codes_stride(size_t dim);

OMENDB_INTERNAL const struct kernel *codes_kernel(const struct code_format *format);

/* A sample of vectors from which `low` and `step` are chosen. */
struct code_sample {
    struct memory *memory;
    float *values; /* `take` of each vector, one vector after the other */
    float *sorted; /* all of them; filled by codes_choose */
    size_t take, count, capacity;
    uint64_t random;
};
OMENDB_INTERNAL int codes_sample_begin(struct code_sample *sample, struct memory *memory);
/* Takes some elements of one more vector; more than CODES_SAMPLE_VECTORS are of no use. */
#define CODES_SAMPLE_VECTORS 1024
OMENDB_INTERNAL void codes_sample_add(struct code_sample *sample,
                                      const struct scalar_format *vectors, const void *vector);
/* The range that codes most vectors with the least error in proportion to their size, clipping
 * included. step 0: the values are too large, too small or too few. */
OMENDB_INTERNAL void codes_choose(struct code_sample *sample, const struct scalar_format *vectors,
                                  struct code_format *format);
OMENDB_INTERNAL void codes_sample_end(struct code_sample *sample);

/* How well a code stands for its vector. Poor: many elements lie outside of the range, which was
 * chosen for other vectors, or hardly any levels are used: it was, or no range serves. */
enum code_quality { CODE_GOOD, CODE_EXACT, CODE_POOR };
/* Whether the range serves when so many of the vectors that it was chosen for have poor codes.
 * Where it does not (elements that nearly equal each other: all codes of a region are one), a graph
 * finds its way over the vectors only. */
OMENDB_INTERNAL int codes_serve(const struct code_format *format, size_t vectors, size_t poor);
/* Whether codes of one range are as good as those of the other. */
OMENDB_INTERNAL int codes_are_alike(const struct code_format *a, const struct code_format *b);

/* out: codes_stride bytes. */
OMENDB_INTERNAL enum code_quality codes_encode(const struct code_format *format, const void *vector,
                                               uint8_t *out);
/* The same for a vector that is only compared with codes; 1 if the code is the vector. */
OMENDB_INTERNAL int codes_encode_query(const struct code_format *format, const void *vector,
                                       uint8_t *out);

/* Whether the distance between an exact query and an exact code is that of the vectors, to the last
 * bit. */
OMENDB_INTERNAL int codes_are_exact(const struct code_format *format);

#endif
