/* column_lists.h: the rows that have each rank of a column, plain or packed; columns.h has the
 * bytes. */
#ifndef OMENDB_COLUMN_LISTS_H
#define OMENDB_COLUMN_LISTS_H

#include "columns.h"

struct column_pack {
    uint32_t first, last; /* made: rows of the list; read: its shorts */
    uint32_t part;        /* row / COLUMN_PACK_ROWS */
    enum column_pack_kind kind;
    uint32_t count;  /* of what the kind has */
    uint32_t shorts; /* that it takes */
};

/* The pack of the `count` ascending rows which begins with that of number `first`. all_rows: of the
 * part of a segment. */
OMENDB_INTERNAL void column_pack_at(const uint32_t *rows, uint32_t count, uint32_t first,
                                    uint32_t all_rows, struct column_pack *pack);
/* Whether packs take so much less than the rows themselves that they pay. */
OMENDB_INTERNAL int column_packs_pay(const uint32_t *rows, uint32_t count, uint32_t all_rows);

/* Sets the bits of rows [first, last], as far as they are below `rows`. */
OMENDB_INTERNAL void column_list_run(uint64_t *bits, uint32_t first, uint32_t last, uint32_t rows);
/* Sets the bits of those of the first `rows` rows that have a rank of [low, high). A bit or more
 * behind them may be set, of the last word (rows / 64). */
OMENDB_INTERNAL void column_list(const struct column *column, uint32_t low, uint32_t high,
                                 uint64_t *bits, uint32_t rows);
/* What that takes, in about nanoseconds. */
OMENDB_INTERNAL uint64_t column_list_cost(const struct column *column, uint32_t low, uint32_t high);

/* The rows of one rank, one after the other. */
struct column_walk {
    uint32_t plain, plain_end; /* places */
    uint32_t pack, pack_end;
    uint32_t at, within; /* of the pack: element, row of a run */
};
OMENDB_INTERNAL void column_walk_begin(const struct column *column, uint32_t rank,
                                       struct column_walk *walk);
/* 0: there is none left. A row may be any number in a file that lies. */
OMENDB_INTERNAL int column_walk_next(const struct column *column, struct column_walk *walk,
                                     uint32_t *row);

#endif
