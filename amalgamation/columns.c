/* columns.c: reading columns; columns.h has the layout. Offsets and counts of the directory are
 * bounded when a column is looked up; what arrays hold is bounded where it is used. */
#include "columns.h"

#include "error.h"
#include "format.h"

#define COLUMNS_NUMBER_BYTES 9 /* of a value that is no text */

static int columns_bad(const struct columns *columns, const char *why)
{
    return error_set(OMENDB_CORRUPT, "columns at offset %llu of a segment: %s; " ERROR_RESTORE,
                     (unsigned long long)columns->range.offset, why);
}

/* Verifies [offset, offset + count * size) of the section and points at it. */
static int columns_array(const struct columns *columns, uint64_t offset, uint64_t count,
                         size_t size, const uint8_t **array)
{
    uint64_t bytes = count * size; /* of at most 2^32 elements of 96 */
    *array = NULL;
    if (offset > columns->range.length || bytes > columns->range.length - offset)
        return columns_bad(columns, "an array lies outside of them");
    *array = columns->file->base + columns->range.offset + offset;
    return bytes == 0 ? OMENDB_OK
                      : blocks_touch(columns->file, columns->range.offset + offset, bytes);
}

OMENDB_INTERNAL int columns_open(struct block_file *file, struct section_range range, uint32_t rows,
                                 struct columns *columns)
{
    const uint8_t *tail, *directory;
    *columns = (struct columns){.file = file, .range = range, .rows = rows};
    if (range.length == 0)
        return OMENDB_OK;
    if (range.length < COLUMNS_TAIL_BYTES)
        return columns_bad(columns, "they have no end");
    int code =
        columns_array(columns, range.length - COLUMNS_TAIL_BYTES, COLUMNS_TAIL_BYTES, 1, &tail);
    if (code != OMENDB_OK)
        return code;
    columns->directory = format_get64(tail);
    columns->count = format_get32(tail + 8);
    columns->incomplete = format_get32(tail + 12) != 0;
    return columns_array(columns, columns->directory, columns->count, COLUMNS_ENTRY_BYTES,
                         &directory);
}

static uint32_t columns_get32(const uint8_t *array, uint32_t index)
{
    return format_get32(array + (size_t)index * sizeof(uint32_t));
}

/* Which rows have each rank. */
static int columns_load_lists(const struct columns *columns, const uint8_t *entry,
                              struct column *column)
{
    uint32_t packed_rows = 0;
    int code = OMENDB_OK;
    column->packed_count = format_get32(entry + COLUMNS_PACKED_COUNT);
    if (column->packed_count > column->values)
        return columns_bad(columns, "more ranks are packed than there are");
    if (column->packed_count != 0)
        code =
            columns_array(columns, format_get64(entry + COLUMNS_PACKED),
                          (uint64_t)column->packed_count + 1, COLUMN_PACKED_BYTES, &column->packed);
    if (code == OMENDB_OK && column->packed_count != 0) {
        const uint8_t *end = column->packed + (size_t)column->packed_count * COLUMN_PACKED_BYTES;
        packed_rows = format_get32(end + COLUMN_PACKED_BEFORE);
        column->pack_count = format_get32(end + COLUMN_PACKED_FIRST);
        column->short_count = format_get32(entry + COLUMNS_SHORT_COUNT);
        code = columns_array(columns, format_get64(entry + COLUMNS_PACKS), column->pack_count,
                             COLUMN_PACK_BYTES, &column->packs);
    }
    if (code == OMENDB_OK)
        code = columns_array(columns, format_get64(entry + COLUMNS_SHORTS), column->short_count,
                             sizeof(uint16_t), &column->shorts);
    if (code == OMENDB_OK && packed_rows > column->listed)
        code = columns_bad(columns, "more rows are packed than are listed");
    column->plain_count = column->listed - packed_rows;
    return code == OMENDB_OK ? columns_array(columns, format_get64(entry + COLUMNS_ROWS),
                                             column->plain_count, sizeof(uint32_t), &column->plain)
                             : code;
}

/* The dictionary, and which rows have each rank. */
static int columns_load_values(const struct columns *columns, const uint8_t *entry,
                               struct column *column)
{
    int code = columns_array(columns, format_get64(entry + COLUMNS_ENDS),
                             (uint64_t)column->values + 1, sizeof(uint32_t), &column->ends);
    if (code != OMENDB_OK)
        return code;
    column->text_bytes = columns_get32(column->ends, column->values);
    code = columns_array(columns, format_get64(entry + COLUMNS_TEXTS), column->text_bytes, 1,
                         &column->texts);
    if (code == OMENDB_OK)
        code = columns_array(columns, format_get64(entry + COLUMNS_COUNTS),
                             (uint64_t)column->values + 1, sizeof(uint32_t), &column->counts);
    if (code != OMENDB_OK)
        return code;
    column->listed = columns_get32(column->counts, column->values);
    return columns_load_lists(columns, entry, column);
}

/* From a row to its ranks. */
static int columns_load_ranks(const struct columns *columns, const uint8_t *entry,
                              struct column *column)
{
    const int dense = column->kind == COLUMN_DENSE;
    int code =
        columns_array(columns, format_get64(entry + COLUMNS_RANKS),
                      dense ? columns->rows : column->elements, column->rank_bytes, &column->ranks);
    if (code == OMENDB_OK && !dense)
        code = columns_array(columns, format_get64(entry + COLUMNS_STARTS),
                             (uint64_t)column->slots + 1, sizeof(uint32_t), &column->starts);
    if (code == OMENDB_OK && column->kind == COLUMN_SPARSE)
        code = columns_array(columns, format_get64(entry + COLUMNS_PLACES), column->slots,
                             sizeof(uint32_t), &column->places);
    return code;
}

static int columns_load(const struct columns *columns, const uint8_t *entry, struct column *column)
{
    const uint32_t kind = format_get32(entry + COLUMNS_KIND);
    *column = (struct column){.kind = COLUMN_NONE};
    if (kind == COLUMN_NONE)
        return OMENDB_OK;
    column->rank_bytes = format_get32(entry + COLUMNS_RANK_BYTES);
    column->values = format_get32(entry + COLUMNS_VALUES);
    column->present = format_get32(entry + COLUMNS_PRESENT);
    column->slots = format_get32(entry + COLUMNS_SLOTS);
    column->elements = format_get32(entry + COLUMNS_ELEMENTS);
    column->rows = columns->rows;
    column->kind = (enum column_kind)kind;
    if (kind > COLUMN_SPARSE || column->present > columns->rows || column->values == UINT32_MAX ||
        column->slots == UINT32_MAX || column->slots > columns->rows ||
        (kind == COLUMN_BY_ROW && column->slots != columns->rows) ||
        (column->rank_bytes != 1 && column->rank_bytes != 2 && column->rank_bytes != 4))
        return columns_bad(columns, "a column with impossible counts");
    int code = columns_load_values(columns, entry, column);
    return code == OMENDB_OK ? columns_load_ranks(columns, entry, column) : code;
}

/* Below, at or above 0 as the name is before, at or after that of the entry. */
static int columns_compare_name(const struct columns *columns, const uint8_t *entry,
                                const uint8_t *name, uint32_t size, int *order)
{
    const uint8_t *stored;
    const uint32_t stored_size = format_get32(entry + COLUMNS_NAME_BYTES);
    int code = columns_array(columns, format_get64(entry + COLUMNS_NAME), stored_size, 1, &stored);
    if (code != OMENDB_OK)
        return code;
    const uint32_t least = size < stored_size ? size : stored_size;
    *order = least == 0 ? 0 : memcmp(name, stored, least);
    if (*order == 0)
        *order = (size > stored_size) - (size < stored_size);
    return OMENDB_OK;
}

OMENDB_INTERNAL int columns_name(const struct columns *columns, uint32_t index,
                                 const uint8_t **name, uint32_t *size)
{
    const uint8_t *directory;
    *size = 0;
    int code =
        columns_array(columns, columns->directory, columns->count, COLUMNS_ENTRY_BYTES, &directory);
    if (code != OMENDB_OK)
        return code;
    const uint8_t *entry = directory + (size_t)index * COLUMNS_ENTRY_BYTES;
    *size = format_get32(entry + COLUMNS_NAME_BYTES);
    return columns_array(columns, format_get64(entry + COLUMNS_NAME), *size, 1, name);
}

OMENDB_INTERNAL int columns_find(const struct columns *columns, const uint8_t *name, uint32_t size,
                                 struct column *column, int *found)
{
    const uint8_t *directory;
    uint32_t low = 0, high = columns->count;
    *column = (struct column){.kind = COLUMN_NONE};
    *found = 0;
    if (columns->range.length == 0)
        return OMENDB_OK;
    int code =
        columns_array(columns, columns->directory, columns->count, COLUMNS_ENTRY_BYTES, &directory);
    while (low < high && code == OMENDB_OK) {
        const uint32_t middle = low + (high - low) / 2;
        const uint8_t *entry = directory + (size_t)middle * COLUMNS_ENTRY_BYTES;
        int order;
        code = columns_compare_name(columns, entry, name, size, &order);
        if (code == OMENDB_OK && order == 0) {
            *found = 1;
            return columns_load(columns, entry, column);
        }
        if (code == OMENDB_OK && order > 0)
            low = middle + 1;
        else
            high = middle;
    }
    return code;
}

OMENDB_INTERNAL int column_value(const struct column *column, uint32_t rank,
                                 struct document_value *value)
{
    const uint64_t begin = columns_get32(column->ends, rank),
                   end = columns_get32(column->ends, rank + 1);
    memset(value, 0, sizeof *value);
    if (begin >= end || end > column->text_bytes)
        return error_set(OMENDB_CORRUPT, "a column has a value of no bytes; " ERROR_RESTORE);
    const uint8_t *at = column->texts + begin;
    value->type = (enum document_type) * at;
    if (value->type == DOCUMENT_TEXT) {
        value->text = at + 1;
        value->size = (uint32_t)(end - begin - 1);
        value->count = 1;
        return OMENDB_OK;
    }
    if ((value->type != DOCUMENT_FALSE && value->type != DOCUMENT_TRUE &&
         value->type != DOCUMENT_INTEGER && value->type != DOCUMENT_REAL) ||
        end - begin != COLUMNS_NUMBER_BYTES)
        return error_set(OMENDB_CORRUPT, "a column has a value of no type; " ERROR_RESTORE);
    if (value->type == DOCUMENT_REAL)
        memcpy(&value->real, at + 1, sizeof value->real);
    else
        memcpy(&value->integer, at + 1, sizeof value->integer);
    return OMENDB_OK;
}

OMENDB_INTERNAL int column_bound(const struct column *column, const struct document_value *value,
                                 int above, uint32_t *rank)
{
    uint32_t low = 0, high = column->values;
    while (low < high) {
        struct document_value stored;
        const uint32_t middle = low + (high - low) / 2;
        int code = column_value(column, middle, &stored);
        if (code != OMENDB_OK)
            return code;
        const int order = document_compare(&stored, value);
        if (order < 0 || (above && order == 0))
            low = middle + 1;
        else
            high = middle;
    }
    *rank = low;
    return OMENDB_OK;
}

OMENDB_INTERNAL uint32_t column_begin(const struct column *column, uint32_t rank)
{
    const uint32_t begin = columns_get32(column->counts, rank);
    return begin < column->listed ? begin : column->listed;
}

/* The slot of a row in a sparse column; column->slots: it has none. */
static uint32_t column_slot(const struct column *column, uint32_t row)
{
    uint32_t low = 0, high = column->slots;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        const uint32_t place = columns_get32(column->places, middle);
        if (place == row)
            return middle;
        if (place < row)
            low = middle + 1;
        else
            high = middle;
    }
    return column->slots;
}

OMENDB_INTERNAL void column_elements(const struct column *column, uint32_t row, uint32_t *first,
                                     uint32_t *last)
{
    *first = *last = 0;
    if (column->kind == COLUMN_DENSE) {
        *first = row;
        *last = column_rank(column, row) == UINT32_MAX ? row : row + 1;
        return;
    }
    const uint32_t slot = column->kind == COLUMN_SPARSE ? column_slot(column, row) : row;
    if (slot == column->slots)
        return;
    *first = columns_get32(column->starts, slot);
    *last = columns_get32(column->starts, slot + 1);
    if (*last > column->elements)
        *last = column->elements;
    if (*first > *last)
        *first = *last;
}

#undef COLUMNS_NUMBER_BYTES
