/* column_filter.h: a filter over the rows of one segment, by its columns and its indexes of ids and
 * keys; or over those of a memtable, by its maps. */
#ifndef OMENDB_COLUMN_FILTER_H
#define OMENDB_COLUMN_FILTER_H

#include "columns.h"
#include "filter.h"

struct memtable; /* memtable.h */
struct segment;  /* database.h */

/* Of one leaf: how a row of the segment is asked. */
enum column_test_kind {
    COLUMN_TEST_FIXED,   /* the same for all rows */
    COLUMN_TEST_RANKS,   /* by its ranks */
    COLUMN_TEST_ROWS,    /* by its number: the ranges are of rows */
    COLUMN_TEST_PLACES,  /* by its id; the ranges are of places among the ascending ids */
    COLUMN_TEST_DOCUMENT /* no column knows: by id and document */
};

struct column_test {
    enum column_test_kind kind;
    int fixed; /* the answer, where it is fixed */
    int negated, null_matches;
    struct column column;
    uint32_t first_range, range_count; /* [low, high) each, ascending, apart */
    uint32_t most;                     /* rows that can match */
    int listed; /* 1: the rows of its ranges are all that can match: an index leads to them */
};

struct column_range {
    uint32_t low, high;
};

struct column_node {
    uint32_t most;   /* rows that can match; UINT32_MAX: not known */
    uint32_t fewest; /* of an AND: its child of which the fewest can */
    int lists;       /* its rows are part of what column_filter_list lists */
};

/* What a filter means in one segment or memtable. */
struct column_filter {
    struct memory *memory;
    const omendb_filter *filter; /* borrowed, as the next two */
    struct segment *segment;     /* or */
    const struct memtable *memtable;
    uint32_t rows;
    struct column_test *tests; /* one a leaf */
    struct column_node *nodes; /* one a node */
    struct column_range *ranges;
    uint64_t *bits;
    uint64_t *found; /* while a test is made: rows of keys, or of ids */
    size_t test_capacity, node_capacity, range_count, range_capacity, word_capacity;
    size_t found_count, found_capacity;
    int code; /* of the first document that could not be read; OMENDB_OK: none */
};

/* Makes `plan`, which is zeroed or was made before, one for this segment. OMENDB_NOMEM,
 * OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_INTERNAL int column_filter_make(struct column_filter *plan, struct memory *memory,
                                       const omendb_filter *filter, struct segment *segment);
/* The same for the first `rows` rows of a memtable, of which only ids and keys lead to rows: it
 * says which may match, and column_filter_matches is not for it. */
OMENDB_INTERNAL int column_filter_make_memtable(struct column_filter *plan, struct memory *memory,
                                                const omendb_filter *filter,
                                                const struct memtable *memtable, uint32_t rows);
/* What it holds, which grows with the leaves and with the values that they are compared with; but
 * for some bits a row. */
OMENDB_INTERNAL size_t column_filter_bytes(const struct column_filter *plan);
OMENDB_INTERNAL void column_filter_destroy(struct column_filter *plan); /* a zeroed one is OK */

/* At most so many rows match; UINT32_MAX: not known. */
OMENDB_INTERNAL uint32_t column_filter_most(const struct column_filter *plan);
/* Whether the row matches. One that cannot be read does, and plan->code says why. */
OMENDB_INTERNAL int column_filter_matches(struct column_filter *plan, uint32_t row);
/* *bits: of the plan, a bit for each of `rows` rows: those that may match are set, where
 * column_filter_most knows how many. *exact: 1: those are the ones that match; 0: each is still to
 * be asked. OMENDB_NOMEM, OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_INTERNAL int column_filter_list(struct column_filter *plan, uint32_t rows, uint64_t **bits,
                                       int *exact);
/* What *exact would be. */
OMENDB_INTERNAL int column_filter_lists_exactly(const struct column_filter *plan, uint32_t rows);

#endif
