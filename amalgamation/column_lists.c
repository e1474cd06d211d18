/* column_lists.c: see column_lists.h.
 *
 * Rows that are not packed lie one after the other whatever their rank, so that those of a range of
 * ranks are one run of them: of the counts, what packed ranks before it have is taken off. */
#include "column_lists.h"

#include "format.h"

/* ------------------------------------------------------------------ making packs */

static uint32_t column_pack_words(uint32_t part, uint32_t all_rows)
{
    const uint64_t begin = (uint64_t)part * COLUMN_PACK_ROWS;
    const uint64_t left = begin < all_rows ? all_rows - begin : 0;
    return (uint32_t)(((left < COLUMN_PACK_ROWS ? left : COLUMN_PACK_ROWS) + 63) / 64);
}

OMENDB_INTERNAL void column_pack_at(const uint32_t *rows, uint32_t count, uint32_t first,
                                    uint32_t all_rows, struct column_pack *pack)
{
    const uint32_t part = rows[first] / COLUMN_PACK_ROWS;
    uint32_t last = first + 1, runs = 1;
    for (; last < count && rows[last] / COLUMN_PACK_ROWS == part; last++)
        runs += rows[last] != rows[last - 1] + 1;
    const uint32_t words = column_pack_words(part, all_rows);
    *pack = (struct column_pack){first, last, part, COLUMN_PACK_LIST, last - first, last - first};
    if (words * 4 < pack->shorts) {
        pack->kind = COLUMN_PACK_BITS;
        pack->count = words;
        pack->shorts = words * 4;
    }
    if (runs * 2 < pack->shorts) {
        pack->kind = COLUMN_PACK_RUNS;
        pack->count = runs;
        pack->shorts = runs * 2;
    }
}

OMENDB_INTERNAL int column_packs_pay(const uint32_t *rows, uint32_t count, uint32_t all_rows)
{
    const uint64_t plain = (uint64_t)count * sizeof *rows;
    uint64_t bytes = COLUMN_PACKED_BYTES;
    struct column_pack pack;
    for (uint32_t first = 0; first < count && bytes <= plain; first = pack.last) {
        column_pack_at(rows, count, first, all_rows, &pack);
        bytes += COLUMN_PACK_BYTES + (uint64_t)pack.shorts * sizeof(uint16_t);
    }
    return bytes <= plain - plain / 4;
}

/* ------------------------------------------------------------------ where lists lie */

static uint32_t column_packed_number(const struct column *column, uint32_t index, size_t field)
{
    return format_get32(column->packed + (size_t)index * COLUMN_PACKED_BYTES + field);
}

/* The first packed rank that is not below `rank`; column->packed_count: none. */
static uint32_t column_first_packed(const struct column *column, uint32_t rank)
{
    uint32_t low = 0, high = column->packed_count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (column_packed_number(column, middle, COLUMN_PACKED_RANK) < rank)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Where the rows and packs of a rank, or of the first behind it that has some, begin. */
static void column_place(const struct column *column, uint32_t rank, uint32_t *plain,
                         uint32_t *pack)
{
    const uint32_t rows = column_begin(column, rank);
    *plain = rows < column->plain_count ? rows : column->plain_count;
    *pack = 0;
    if (column->packed_count == 0)
        return;
    const uint32_t index = column_first_packed(column, rank);
    const uint32_t before = column_packed_number(column, index, COLUMN_PACKED_BEFORE),
                   first = column_packed_number(column, index, COLUMN_PACKED_FIRST);
    const uint32_t left = rows < before ? 0 : rows - before;
    *plain = left < column->plain_count ? left : column->plain_count;
    *pack = first < column->pack_count ? first : column->pack_count;
}

/* A pack, bounded: its shorts lie among those of the column, and are not more than it can have.
 * first, last: of its shorts. */
static const uint8_t *column_pack_get(const struct column *column, uint32_t index,
                                      struct column_pack *pack)
{
    const uint8_t *entry = column->packs + (size_t)index * COLUMN_PACK_BYTES;
    uint16_t part, kind;
    memcpy(&part, entry + COLUMN_PACK_PART, sizeof part);
    memcpy(&kind, entry + COLUMN_PACK_KIND, sizeof kind);
    const uint64_t first = format_get32(entry + COLUMN_PACK_SHORTS);
    const uint64_t count = format_get32(entry + COLUMN_PACK_COUNT);
    const uint64_t shorts = kind == COLUMN_PACK_BITS   ? count * 4
                            : kind == COLUMN_PACK_RUNS ? count * 2
                                                       : count;
    *pack = (struct column_pack){.part = part};
    pack->kind = (enum column_pack_kind)kind;
    if (first > column->short_count || shorts > column->short_count - first ||
        shorts > (kind == COLUMN_PACK_BITS ? COLUMN_PACK_ROWS / 16 : COLUMN_PACK_ROWS))
        return column->shorts;
    pack->count = (uint32_t)count;
    pack->first = (uint32_t)first;
    pack->last = (uint32_t)(first + shorts);
    return column->shorts + (size_t)first * sizeof(uint16_t);
}

static uint32_t column_short(const uint8_t *shorts, uint32_t index)
{
    uint16_t value;
    memcpy(&value, shorts + (size_t)index * sizeof value, sizeof value);
    return value;
}

/* ------------------------------------------------------------------ lists as bits */

OMENDB_INTERNAL void column_list_run(uint64_t *bits, uint32_t first, uint32_t last, uint32_t rows)
{
    if (first >= rows || last < first)
        return;
    last = last < rows ? last : rows - 1;
    const uint64_t head = UINT64_MAX << (first % 64), tail = UINT64_MAX >> (63 - last % 64);
    const uint32_t end = last / 64;
    if (first / 64 == end) {
        bits[end] |= head & tail;
        return;
    }
    bits[first / 64] |= head;
    for (uint32_t word = first / 64 + 1; word < end; word++)
        bits[word] = UINT64_MAX;
    bits[end] |= tail;
}

/* Those that do not ascend end it, so that a file that lies does not cost more than its bytes. */
static void column_list_runs(const struct column_pack *pack, const uint8_t *shorts, uint64_t *bits,
                             uint32_t rows)
{
    const uint32_t begin = pack->part * COLUMN_PACK_ROWS;
    uint32_t least = 0;
    for (uint32_t i = 0; i < pack->count; i++) {
        const uint32_t first = column_short(shorts, 2 * i), last = column_short(shorts, 2 * i + 1);
        if (first < least || last < first)
            return;
        column_list_run(bits, begin + first, begin + last, rows);
        least = last + 1;
    }
}

static void column_list_words(const struct column_pack *pack, const uint8_t *shorts, uint64_t *bits,
                              uint32_t rows)
{
    const uint32_t begin = pack->part * COLUMN_PACK_ROWS, there = (rows - begin) / 64 + 1;
    const uint32_t words = pack->count < there ? pack->count : there;
    for (uint32_t i = 0; i < words; i++) {
        uint64_t word;
        memcpy(&word, shorts + (size_t)i * sizeof word, sizeof word);
        bits[begin / 64 + i] |= word;
    }
}

static void column_list_pack(const struct column_pack *pack, const uint8_t *shorts, uint64_t *bits,
                             uint32_t rows)
{
    const uint32_t begin = pack->part * COLUMN_PACK_ROWS;
    if (begin >= rows)
        return;
    if (pack->kind == COLUMN_PACK_BITS) {
        column_list_words(pack, shorts, bits, rows);
        return;
    }
    if (pack->kind == COLUMN_PACK_RUNS) {
        column_list_runs(pack, shorts, bits, rows);
        return;
    }
    for (uint32_t i = 0; i < pack->count; i++) {
        const uint32_t row = begin + column_short(shorts, i);
        if (row < rows)
            bits[row / 64] |= UINT64_C(1) << (row % 64);
    }
}

OMENDB_INTERNAL void column_list(const struct column *column, uint32_t low, uint32_t high,
                                 uint64_t *bits, uint32_t rows)
{
    uint32_t plain, plain_end, pack, pack_end;
    column_place(column, low, &plain, &pack);
    column_place(column, high, &plain_end, &pack_end);
    for (; plain < plain_end; plain++) {
        const uint32_t row = format_get32(column->plain + (size_t)plain * sizeof row);
        if (row < rows)
            bits[row / 64] |= UINT64_C(1) << (row % 64);
    }
    for (uint32_t behind = 0; pack < pack_end; pack++) {
        struct column_pack found;
        const uint8_t *shorts = column_pack_get(column, pack, &found);
        if (found.first < behind)
            return; /* of a file that lies: each short is read once */
        behind = found.last;
        column_list_pack(&found, shorts, bits, rows);
    }
}

static uint32_t column_first_short(const struct column *column, uint32_t pack)
{
    return pack < column->pack_count
               ? format_get32(column->packs + (size_t)pack * COLUMN_PACK_BYTES)
               : column->short_count;
}

OMENDB_INTERNAL uint64_t column_list_cost(const struct column *column, uint32_t low, uint32_t high)
{
    uint32_t plain, plain_end, pack, pack_end;
    column_place(column, low, &plain, &pack);
    column_place(column, high, &plain_end, &pack_end);
    uint64_t cost = plain_end > plain ? plain_end - plain : 0;
    if (pack_end > pack) {
        const uint32_t first = column_first_short(column, pack),
                       last = column_first_short(column, pack_end);
        cost += last > first ? (last - first) / 2 : 0;
    }
    return cost;
}

/* ------------------------------------------------------------------ rows one by one */

OMENDB_INTERNAL void column_walk_begin(const struct column *column, uint32_t rank,
                                       struct column_walk *walk)
{
    column_place(column, rank, &walk->plain, &walk->pack);
    column_place(column, rank + 1, &walk->plain_end, &walk->pack_end);
    walk->at = walk->within = 0;
}

/* The next row of a pack, from its first; 0: there is none left. */
static int column_walk_pack(const struct column_pack *pack, const uint8_t *shorts,
                            struct column_walk *walk, uint32_t *row)
{
    const uint64_t bits = (uint64_t)pack->count * 64;
    switch (pack->kind) {
    case COLUMN_PACK_BITS:
        for (; walk->at < bits; walk->at++) {
            if ((shorts[walk->at / 8] >> (walk->at % 8) & 1) != 0) {
                *row = walk->at++;
                return 1;
            }
        }
        return 0;
    case COLUMN_PACK_RUNS:
        for (; walk->at < pack->count; walk->at++, walk->within = 0) {
            const uint32_t first = column_short(shorts, 2 * walk->at);
            if (walk->at != 0 && first <= column_short(shorts, 2 * walk->at - 1))
                return 0;
            *row = first + walk->within++;
            if (*row <= column_short(shorts, 2 * walk->at + 1))
                return 1;
        }
        return 0;
    default:
        if (walk->at >= pack->count)
            return 0;
        *row = column_short(shorts, walk->at++);
        return 1;
    }
}

OMENDB_INTERNAL int column_walk_next(const struct column *column, struct column_walk *walk,
                                     uint32_t *row)
{
    if (walk->plain < walk->plain_end) {
        *row = format_get32(column->plain + (size_t)walk->plain++ * sizeof *row);
        return 1;
    }
    for (; walk->pack < walk->pack_end; walk->pack++, walk->at = walk->within = 0) {
        struct column_pack pack;
        const uint8_t *shorts = column_pack_get(column, walk->pack, &pack);
        if (column_walk_pack(&pack, shorts, walk, row)) {
            *row += pack.part * COLUMN_PACK_ROWS;
            return 1;
        }
    }
    return 0;
}
