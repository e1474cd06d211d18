/* columns.h: the fields of the records of a segment, each as a column: a sorted dictionary of the
 * values that occur, for each row the rank of its value there, and for each rank the rows that have
 * it. A condition on a field becomes ranges of ranks once, and is then a comparison of small
 * numbers for each row, whatever the type of the values; how many rows match one leaf is known
 * before any is looked at. Where it is less by a quarter, the rows of a rank are packed: by each
 * 65,536 rows as numbers of 16 bits, as a bit each, or as runs, whichever is smallest, as in
 * Roaring (Lemire, Ssi-Yan-Kai, Kaser: Consistently faster and smaller compressed bitmaps with
 * Roaring, 2016). Ranks of a few rows, as of values that are unique, are left as they are. Of
 * 300,000 rows with 2, 10, 100 and 1,000 values in no order lists take 0.25, 1.25, 2.02 and 2.24
 * bytes a row in place of 4, of values that follow the order of rows 0.01.
 *
 * Columns follow from the documents and are made with the segment. Values are equal, and in order,
 * as document_compare says: 1 and 1.0 have one rank.
 *
 * The section, little-endian; offsets count from its beginning and are multiples of 8:
 *   of each column its arrays, see below
 *   directory: 128 bytes a column, ascending by name:
 *      0  4  ranks that are packed                      4  4  bytes of the name
 *      8  8  offset of the name
 *     16  4  kind: 1 dense, 2 listed by row, 3 listed sparsely; 0: there is none, as the field has
 *            too many or too large values for one: the documents must be asked
 *     20  4  bytes of a rank: 1, 2 or 4
 *     24  4  values                                   28  4  rows in which the field is not null
 *     32  4  slots: listed by row: rows; sparsely: rows in which it is not null; dense: 0
 *     36  4  elements: listed: of all slots; dense: 0
 *     40  8  ranks    dense: of each row, 1 more than the rank, 0: null. Listed: of each element,
 *            ascending in a slot; `values` stands for an empty array
 *     48  8  starts   listed: slots + 1 u32, where the elements of each slot begin
 *     56  8  places   listed sparsely: u32 row of each slot, ascending
 *     64  8  ends     values + 1 u32: where each value begins among `texts`, and the last ends
 *     72  8  texts    of each value: u8 type (document_type), then 8 bytes or the text
 *     80  8  counts   values + 1 u32: of each rank how many rows those before it have together
 *     88  8  rows     u32: of each rank that is not packed, ascending
 *     96  8  packed   12 bytes a packed rank, ascending, and one more for the end: u32 rank
 *                     (`values`), u32 rows of the packed ranks before it, u32 its first pack
 *    104  8  packs    12 bytes each, ascending for each rank: u32 first of its shorts, u32 count,
 *                     u16 rows / 65536, u16 kind: 1 rows: `count` u16; 2 bits: one for each row
 *                     there is, in u64, `count` of them; 3 runs: `count` times u16 first and last
 *    112  8  shorts   u16
 *    120  4  shorts                                 124  4  zero
 *   u64 offset of the directory, u32 columns, u32 flags: 1: fields are missing in it
 *
 * Nothing in it is trusted: where it does not make sense OMENDB_CORRUPT says so. */
#ifndef OMENDB_COLUMNS_H
#define OMENDB_COLUMNS_H

#include "internal.h"
#include "document.h"
#include "hash.h"
#include "segment.h"

#define COLUMNS_MAX         512 /* fields of one segment that have a column */
#define COLUMNS_ENTRY_BYTES 128
#define COLUMNS_TAIL_BYTES  16

enum columns_entry {
    COLUMNS_PACKED_COUNT = 0,
    COLUMNS_NAME_BYTES = 4,
    COLUMNS_NAME = 8,
    COLUMNS_KIND = 16,
    COLUMNS_RANK_BYTES = 20,
    COLUMNS_VALUES = 24,
    COLUMNS_PRESENT = 28,
    COLUMNS_SLOTS = 32,
    COLUMNS_ELEMENTS = 36,
    COLUMNS_RANKS = 40,
    COLUMNS_STARTS = 48,
    COLUMNS_PLACES = 56,
    COLUMNS_ENDS = 64,
    COLUMNS_TEXTS = 72,
    COLUMNS_COUNTS = 80,
    COLUMNS_ROWS = 88,
    COLUMNS_PACKED = 96,
    COLUMNS_PACKS = 104,
    COLUMNS_SHORTS = 112,
    COLUMNS_SHORT_COUNT = 120,
    COLUMNS_ZERO = 124
};
_Static_assert((int)COLUMNS_ZERO + 4 == (int)COLUMNS_ENTRY_BYTES, "a zero ends an entry");

#define COLUMN_PACKED_BYTES 12
#define COLUMN_PACK_BYTES   12
#define COLUMN_PACK_ROWS    65536 /* that one pack can tell of */

enum column_packed_entry {
    COLUMN_PACKED_RANK = 0,
    COLUMN_PACKED_BEFORE = 4,
    COLUMN_PACKED_FIRST = 8
};
enum column_pack_entry {
    COLUMN_PACK_SHORTS = 0,
    COLUMN_PACK_COUNT = 4,
    COLUMN_PACK_PART = 8,
    COLUMN_PACK_KIND = 10
};
enum column_pack_kind { COLUMN_PACK_LIST = 1, COLUMN_PACK_BITS = 2, COLUMN_PACK_RUNS = 3 };

enum column_kind { COLUMN_NONE = 0, COLUMN_DENSE = 1, COLUMN_BY_ROW = 2, COLUMN_SPARSE = 3 };

/* One column, bounded: its arrays lie in the section, whose blocks are verified. */
struct column {
    enum column_kind kind; /* COLUMN_NONE: ask the documents */
    uint32_t rank_bytes, values, present, slots, elements, rows;
    const uint8_t *ranks, *starts, *places, *ends, *texts, *counts;
    uint64_t text_bytes;
    uint32_t listed;                                /* rows of all ranks together */
    const uint8_t *plain, *packed, *packs, *shorts; /* column_lists.h */
    uint32_t plain_count, packed_count, pack_count, short_count;
};

struct columns {
    struct block_file *file;
    struct section_range range; /* length 0: there are none */
    uint64_t directory;
    uint32_t count, rows;
    int incomplete;
};

/* The columns of a part. Reads its last bytes. */
OMENDB_INTERNAL int columns_open(struct block_file *file, struct section_range range, uint32_t rows,
                                 struct columns *columns);
/* The column of a field. *found 0: no row has the field, unless columns are incomplete. */
OMENDB_INTERNAL int columns_find(const struct columns *columns, const uint8_t *name, uint32_t size,
                                 struct column *column, int *found);
/* The name of column number `index`, which is below columns->count. */
OMENDB_INTERNAL int columns_name(const struct columns *columns, uint32_t index,
                                 const uint8_t **name, uint32_t *size);
/* The value of a rank, which is below column->values. */
OMENDB_INTERNAL int column_value(const struct column *column, uint32_t rank,
                                 struct document_value *value);
/* First rank whose value is not below (`above`: is above) the value. */
OMENDB_INTERNAL int column_bound(const struct column *column, const struct document_value *value,
                                 int above, uint32_t *rank);
/* How many rows the ranks before it have together. */
OMENDB_INTERNAL uint32_t column_begin(const struct column *column, uint32_t rank);

/* The ranks of a row: [*first, *last) of column->ranks; dense: one, or none where it is null. */
OMENDB_INTERNAL void column_elements(const struct column *column, uint32_t row, uint32_t *first,
                                     uint32_t *last);
/* Of an element: the rank; column->values of an empty array. */
static inline uint32_t column_rank(const struct column *column, uint32_t element)
{
    const uint8_t *at = column->ranks + (size_t)element * column->rank_bytes;
    const uint32_t less = column->kind == COLUMN_DENSE;
    uint16_t two;
    uint32_t four;
    if (column->rank_bytes == 1)
        return *at - less;
    if (column->rank_bytes == 2) {
        memcpy(&two, at, sizeof two);
        return two - less;
    }
    memcpy(&four, at, sizeof four);
    return four - less;
}

/* Of a part that is being written: the documents of all rows, in the order of rows. */
struct columns_source {
    int (*read)(void *context, uint32_t row, const uint8_t **document);
    void *context;
};
/* Writes the section; none where no row has a field. seed: of hashes while it is made. Documents
 * stay until it returns. Makes as many columns at a time as are likely to take no more than `most`
 * bytes, or one. A column for which there is no memory becomes one of COLUMN_NONE: filters then ask
 * the documents. */
OMENDB_INTERNAL int columns_write(struct segment_writer *writer, struct memory *memory,
                                  const struct hash_seed *seed, const struct columns_source *source,
                                  uint32_t rows, size_t most);

#endif
