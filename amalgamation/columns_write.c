/* columns_write.c: making the columns of a part from its documents; columns.h has the layout.
 *
 * A first pass finds the fields, and how many rows and values each has. Then columns are made in
 * groups, as many at a time as memory allows: one pass over the documents numbers the values as
 * they are met, by a hash table of each column, and notes the numbers row by row; then the values
 * are sorted, numbers become ranks, and the arrays are written. */
#include "column_lists.h"

#include "error.h"
#include "format.h"
#include "idmap.h"
#include "sort.h"

#include <assert.h>

#define COLUMNS_SPARSE_PART      8 /* in fewer than one row of so many: listed sparsely */
#define COLUMNS_TABLE_MIN        64
#define COLUMNS_SHORTS_AT_A_TIME 256
#define COLUMNS_VALUE_BYTES      64 /* of a value that no other row has, while its column is made */
#define COLUMNS_FIELD_SLOTS      (4 * COLUMNS_MAX)
#define COLUMNS_NO_NUMBER        UINT32_MAX /* in place of the value of an empty array */

/* A value without what only one type needs. Integral reals are integers here. */
struct column_key {
    uint64_t bits; /* of a number; or the address of a text */
    uint32_t size; /* of a text */
    uint32_t type; /* document_type */
};

struct column_build {
    const uint8_t *name; /* in a document */
    uint32_t name_size, name_hash;
    uint32_t present;
    uint64_t elements;    /* an empty array counts for one */
    uint64_t value_bytes; /* of the dictionary */
    int has_arrays;
    enum column_kind kind;
    uint32_t turn; /* in the order of names */
    /* While its group is made: */
    uint32_t *numbers; /* dense: of each row, 1 more, 0: null; else of each element */
    uint32_t *starts;  /* slots + 1; not of dense ones */
    uint32_t *places;  /* of sparse ones */
    uint32_t slots, used_slots, used_elements;
    struct column_key *keys;
    uint32_t key_count, key_capacity;
    uint32_t *table; /* number + 1 of keys; open addressing */
    uint32_t table_slots;
    uint8_t entry[COLUMNS_ENTRY_BYTES];
};

struct columns_build {
    struct segment_writer *writer;
    struct memory *memory;
    const struct hash_seed *seed;
    const struct columns_source *source;
    uint32_t rows;
    struct column_build *columns; /* COLUMNS_MAX of them, as they were met */
    struct column_build **order;  /* by name */
    uint32_t count;
    uint32_t *fields; /* index + 1 by hash of the name; COLUMNS_FIELD_SLOTS */
    int incomplete;
    uint64_t at; /* bytes written */
};

/* ------------------------------------------------------------------ fields */

static struct column_build *columns_field(struct columns_build *build,
                                          const struct document_field *field, int add)
{
    const uint32_t hash = (uint32_t)hash_bytes(build->seed, field->name, field->name_size);
    uint32_t slot = hash % COLUMNS_FIELD_SLOTS;
    for (; build->fields[slot] != 0; slot = (slot + 1) % COLUMNS_FIELD_SLOTS) {
        struct column_build *column = &build->columns[build->fields[slot] - 1];
        if (column->name_hash == hash && column->name_size == field->name_size &&
            memcmp(column->name, field->name, field->name_size) == 0)
            return column;
    }
    if (!add)
        return NULL;
    if (build->count == COLUMNS_MAX) {
        build->incomplete = 1;
        return NULL;
    }
    struct column_build *column = &build->columns[build->count++];
    build->fields[slot] = build->count;
    column->name = field->name;
    column->name_size = field->name_size;
    column->name_hash = hash;
    return column;
}

static void columns_count_field(struct columns_build *build, const struct document_field *field)
{
    const struct document_value *value = &field->value;
    struct column_build *column =
        value->type == DOCUMENT_NULL ? NULL : columns_field(build, field, 1);
    if (column == NULL)
        return;
    column->present++;
    column->elements += value->type == DOCUMENT_TEXTS && value->count != 0 ? value->count : 1;
    column->has_arrays |= value->type == DOCUMENT_TEXTS;
}

static int columns_count(struct columns_build *build)
{
    int code = OMENDB_OK;
    for (uint32_t row = 0; row < build->rows && code == OMENDB_OK; row++) {
        const uint8_t *document;
        code = build->source->read(build->source->context, row, &document);
        const uint32_t fields = code == OMENDB_OK ? document_field_count(document) : 0;
        for (uint32_t i = 0; i < fields; i++) {
            struct document_field field;
            document_field(document, i, &field);
            columns_count_field(build, &field);
        }
    }
    return code;
}

static int columns_compare_names(const void *left, const void *right)
{
    const struct column_build *a = *(const struct column_build *const *)left,
                              *b = *(const struct column_build *const *)right;
    const uint32_t least = a->name_size < b->name_size ? a->name_size : b->name_size;
    const int order = least == 0 ? 0 : memcmp(a->name, b->name, least);
    return order != 0 ? order : (a->name_size > b->name_size) - (a->name_size < b->name_size);
}

static enum column_kind column_choose(const struct column_build *column, uint32_t rows)
{
    if (column->elements >= UINT32_MAX / 2)
        return COLUMN_NONE;
    if (column->present < rows / COLUMNS_SPARSE_PART)
        return COLUMN_SPARSE;
    return column->has_arrays ? COLUMN_BY_ROW : COLUMN_DENSE;
}

static void columns_settle(struct columns_build *build)
{
    for (uint32_t i = 0; i < build->count; i++)
        build->order[i] = &build->columns[i];
    if (build->count > 1)
        sort_array(build->order, build->count, sizeof *build->order, columns_compare_names);
    for (uint32_t i = 0; i < build->count; i++) {
        struct column_build *column = build->order[i];
        column->turn = i;
        column->kind = column_choose(column, build->rows);
        column->slots = column->kind == COLUMN_SPARSE   ? column->present
                        : column->kind == COLUMN_BY_ROW ? build->rows
                                                        : 0;
    }
}

/* ------------------------------------------------------------------ numbers for values */

static struct column_key column_key_of(const struct document_value *value)
{
    struct column_key key = {0, 0, (uint32_t)value->type};
    int64_t integer = value->integer;
    if (value->type == DOCUMENT_TEXT) {
        key.bits = (uint64_t)(uintptr_t)value->text;
        key.size = value->size;
    } else if (value->type == DOCUMENT_REAL && value->real >= -0x1p63 && value->real < 0x1p63 &&
               (double)(int64_t)value->real == value->real) {
        integer = (int64_t)value->real;
        key.type = DOCUMENT_INTEGER;
        memcpy(&key.bits, &integer, sizeof integer);
    } else if (value->type == DOCUMENT_REAL) {
        memcpy(&key.bits, &value->real, sizeof key.bits);
    } else if (value->type == DOCUMENT_INTEGER) {
        memcpy(&key.bits, &integer, sizeof integer);
    }
    return key;
}

static void column_key_value(const struct column_key *key, struct document_value *value)
{
    memset(value, 0, sizeof *value);
    value->type = (enum document_type)key->type;
    if (value->type == DOCUMENT_TEXT) {
        value->text = (const uint8_t *)(uintptr_t)key->bits;
        value->size = key->size;
    } else if (value->type == DOCUMENT_REAL) {
        memcpy(&value->real, &key->bits, sizeof value->real);
    } else {
        memcpy(&value->integer, &key->bits, sizeof value->integer);
    }
}

static uint64_t column_key_hash(const struct hash_seed *seed, const struct column_key *key)
{
    return key->type == DOCUMENT_TEXT
               ? hash_bytes(seed, (const uint8_t *)(uintptr_t)key->bits, key->size)
               : hash_number(seed, key->bits + key->type);
}

static int column_key_equals(const struct column_key *a, const struct column_key *b)
{
    if (a->type != b->type || a->size != b->size)
        return 0;
    return a->type == DOCUMENT_TEXT ? memcmp((const void *)(uintptr_t)a->bits,
                                             (const void *)(uintptr_t)b->bits, a->size) == 0
                                    : a->bits == b->bits;
}

static size_t column_value_bytes(const struct column_key *key)
{
    return key->type == DOCUMENT_TEXT ? (size_t)key->size + 1 : 1 + sizeof key->bits;
}

static uint32_t column_table_slot(const struct hash_seed *seed, const struct column_build *column,
                                  const struct column_key *key)
{
    uint32_t slot = (uint32_t)column_key_hash(seed, key) & (column->table_slots - 1);
    while (column->table[slot] != 0 &&
           !column_key_equals(&column->keys[column->table[slot] - 1], key))
        slot = (slot + 1) & (column->table_slots - 1);
    return slot;
}

/* Room for one more key; the table is at most half full. */
static int column_reserve_key(const struct columns_build *build, struct column_build *column)
{
    struct memory *memory = build->memory;
    if (column->key_count < column->key_capacity)
        return OMENDB_OK;
    const uint32_t capacity =
        column->key_capacity == 0 ? COLUMNS_TABLE_MIN / 2 : column->key_capacity * 2;
    struct column_key *keys =
        memory_resize(memory, column->keys, column->key_capacity * sizeof *keys,
                      memory_multiply(capacity, sizeof *keys));
    if (keys == NULL)
        return OMENDB_NOMEM;
    column->keys = keys;
    column->key_capacity = capacity;
    memory_free(memory, column->table, column->table_slots * sizeof *column->table);
    column->table_slots = capacity * 2;
    column->table = memory_zalloc(memory, column->table_slots * sizeof *column->table);
    if (column->table == NULL) {
        column->table_slots = 0;
        return OMENDB_NOMEM;
    }
    for (uint32_t i = 0; i < column->key_count; i++)
        column->table[column_table_slot(build->seed, column, &keys[i])] = i + 1;
    return OMENDB_OK;
}

static int column_number(const struct columns_build *build, struct column_build *column,
                         const struct document_value *value, uint32_t *number)
{
    const struct column_key key = column_key_of(value);
    int code = column_reserve_key(build, column);
    if (code != OMENDB_OK)
        return code;
    const uint32_t slot = column_table_slot(build->seed, column, &key);
    if (column->table[slot] == 0) {
        column->keys[column->key_count++] = key;
        column->table[slot] = column->key_count;
        column->value_bytes += column_value_bytes(&key);
    }
    *number = column->table[slot] - 1;
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ one pass for a group */

/* A document may be another one than when it was counted only where a file changes below us: what
 * then is too much is left out. */
static int column_add_element(const struct columns_build *build, struct column_build *column,
                              const struct document_value *value)
{
    uint32_t number = COLUMNS_NO_NUMBER;
    int code = value == NULL ? OMENDB_OK : column_number(build, column, value, &number);
    if (code == OMENDB_OK && column->used_elements < column->elements)
        column->numbers[column->used_elements++] = number;
    return code;
}

static int column_add_listed(const struct columns_build *build, struct column_build *column,
                             uint32_t row, const struct document_value *value)
{
    uint32_t at = 0;
    int code = OMENDB_OK;
    if (column->kind == COLUMN_SPARSE) {
        if (column->used_slots == column->slots)
            return OMENDB_OK;
        column->places[column->used_slots] = row;
        column->starts[column->used_slots++] = column->used_elements;
    }
    if (value->type != DOCUMENT_TEXTS)
        return column_add_element(build, column, value);
    if (value->count == 0)
        return column_add_element(build, column, NULL);
    struct document_value text = {.type = DOCUMENT_TEXT, .count = 1};
    while (code == OMENDB_OK && document_next_text(value, &at, &text.text, &text.size))
        code = column_add_element(build, column, &text);
    return code;
}

static int column_add(const struct columns_build *build, struct column_build *column, uint32_t row,
                      const struct document_value *value)
{
    uint32_t number;
    if (column->kind != COLUMN_DENSE)
        return column_add_listed(build, column, row, value);
    int code = column_number(build, column, value, &number);
    if (code == OMENDB_OK)
        column->numbers[row] = number + 1;
    return code;
}

static int columns_gather_row(struct columns_build *build, uint32_t first, uint32_t last,
                              uint32_t row)
{
    const uint8_t *document;
    int code = build->source->read(build->source->context, row, &document);
    for (uint32_t i = first; i < last && code == OMENDB_OK; i++) {
        if (build->order[i]->kind == COLUMN_BY_ROW)
            build->order[i]->starts[row] = build->order[i]->used_elements;
    }
    const uint32_t fields = code == OMENDB_OK ? document_field_count(document) : 0;
    for (uint32_t i = 0; i < fields && code == OMENDB_OK; i++) {
        struct document_field field;
        document_field(document, i, &field);
        struct column_build *column =
            field.value.type == DOCUMENT_NULL ? NULL : columns_field(build, &field, 0);
        if (column != NULL && column->turn >= first && column->turn < last &&
            column->kind != COLUMN_NONE)
            code = column_add(build, column, row, &field.value);
    }
    return code;
}

static size_t column_needs(const struct columns_build *build, const struct column_build *column)
{
    const uint64_t rows = column->kind == COLUMN_DENSE ? build->rows : column->elements;
    const size_t fixed =
        memory_multiply((size_t)rows * 2 + (size_t)column->slots * 2 + 2, sizeof(uint32_t));
    return column->kind == COLUMN_NONE
               ? 0
               : memory_add(fixed, memory_multiply((size_t)column->elements, COLUMNS_VALUE_BYTES));
}

static int column_begin_group(const struct columns_build *build, struct column_build *column)
{
    struct memory *memory = build->memory;
    const size_t numbers = column->kind == COLUMN_DENSE ? build->rows : (size_t)column->elements;
    column->used_slots = column->used_elements = 0;
    if (column->kind == COLUMN_NONE)
        return OMENDB_OK;
    column->numbers = memory_zalloc(memory, memory_multiply(numbers, sizeof *column->numbers));
    if (column->kind != COLUMN_DENSE)
        column->starts = memory_zalloc(
            memory, memory_multiply((size_t)column->slots + 1, sizeof *column->starts));
    if (column->kind == COLUMN_SPARSE)
        column->places =
            memory_zalloc(memory, memory_multiply(column->slots, sizeof *column->places));
    return column->numbers == NULL || (column->kind != COLUMN_DENSE && column->starts == NULL) ||
                   (column->kind == COLUMN_SPARSE && column->places == NULL)
               ? OMENDB_NOMEM
               : OMENDB_OK;
}

static void column_end_group(const struct columns_build *build, struct column_build *column)
{
    struct memory *memory = build->memory;
    const size_t numbers = column->kind == COLUMN_DENSE ? build->rows : (size_t)column->elements;
    memory_free(memory, column->numbers,
                column->numbers == NULL ? 0 : numbers * sizeof *column->numbers);
    memory_free(memory, column->starts,
                column->starts == NULL ? 0 : ((size_t)column->slots + 1) * sizeof *column->starts);
    memory_free(memory, column->places,
                column->places == NULL ? 0 : column->slots * sizeof *column->places);
    memory_free(memory, column->keys, column->key_capacity * sizeof *column->keys);
    memory_free(memory, column->table, column->table_slots * sizeof *column->table);
    column->numbers = column->starts = column->places = column->table = NULL;
    column->keys = NULL;
    column->key_count = column->key_capacity = column->table_slots = 0;
    column->value_bytes = 0;
}

/* ------------------------------------------------------------------ ranks */

struct column_order {
    struct column_key key;
    uint32_t number;
};

static int column_compare_order(const void *left, const void *right)
{
    struct document_value a, b;
    column_key_value(&((const struct column_order *)left)->key, &a);
    column_key_value(&((const struct column_order *)right)->key, &b);
    return document_compare(&a, &b);
}

static int column_compare_ranks(const void *left, const void *right)
{
    uint32_t a, b;
    memcpy(&a, left, sizeof a);
    memcpy(&b, right, sizeof b);
    return (a > b) - (a < b);
}

static void column_replace_numbers(struct column_build *column, uint32_t rows,
                                   const uint32_t *ranks)
{
    if (column->kind == COLUMN_DENSE) {
        for (uint32_t row = 0; row < rows; row++) {
            if (column->numbers[row] != 0)
                column->numbers[row] = ranks[column->numbers[row] - 1] + 1;
        }
        return;
    }
    for (uint32_t i = 0; i < column->used_elements; i++)
        column->numbers[i] =
            column->numbers[i] == COLUMNS_NO_NUMBER ? column->key_count : ranks[column->numbers[i]];
}

/* Keys in the order of values; numbers become ranks. */
static int column_rank_values(struct memory *memory, struct column_build *column, uint32_t rows)
{
    const uint32_t count = column->key_count;
    struct column_order *order = memory_array(memory, count, sizeof *order);
    uint32_t *ranks = memory_array(memory, count, sizeof *ranks);
    int code = order == NULL || ranks == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++)
        order[i] = (struct column_order){column->keys[i], i};
    if (code == OMENDB_OK && count > 1)
        sort_array(order, count, sizeof *order, column_compare_order);
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++) {
        column->keys[i] = order[i].key;
        ranks[order[i].number] = i;
    }
    memory_free(memory, order, count * sizeof *order);
    if (code == OMENDB_OK)
        column_replace_numbers(column, rows, ranks);
    memory_free(memory, ranks, count * sizeof *ranks);
    return code;
}

/* In each slot the ranks ascend, each once. */
static void column_sort_slots(struct column_build *column)
{
    uint32_t kept = 0, begin = 0;
    for (uint32_t slot = 0; slot < column->slots; slot++) {
        const uint32_t end = column->starts[slot + 1], first = kept;
        if (end - begin > 1)
            sort_array(column->numbers + begin, end - begin, sizeof *column->numbers,
                       column_compare_ranks);
        for (uint32_t i = begin; i < end; i++) {
            if (kept == first || column->numbers[kept - 1] != column->numbers[i])
                column->numbers[kept++] = column->numbers[i];
        }
        column->starts[slot] = first;
        begin = end;
    }
    column->starts[column->slots] = column->used_elements = kept;
}

/* ------------------------------------------------------------------ writing */

static int columns_put(struct columns_build *build, const void *data, size_t size)
{
    build->at += size;
    return size == 0 ? OMENDB_OK : segment_writer_append(build->writer, data, size);
}

/* The next array begins here: its offset goes into the entry. */
static int columns_begin_array(struct columns_build *build, uint8_t *entry, size_t field)
{
    static const uint8_t zeros[8];
    int code = columns_put(build, zeros, (8 - build->at % 8) % 8);
    format_put64(entry + field, build->at);
    return code;
}

static int columns_put_numbers(struct columns_build *build, const uint32_t *numbers, size_t count)
{
    return columns_put(build, numbers, count * sizeof *numbers);
}

static int columns_put_ranks(struct columns_build *build, const struct column_build *column,
                             uint32_t count, uint32_t rank_bytes)
{
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++)
        code = columns_put(build, &column->numbers[i], rank_bytes); /* little-endian */
    return code;
}

static int columns_put_values(struct columns_build *build, struct column_build *column)
{
    uint32_t end = 0;
    int code = columns_begin_array(build, column->entry, COLUMNS_ENDS);
    for (uint32_t i = 0; i < column->key_count && code == OMENDB_OK; i++) {
        code = columns_put(build, &end, sizeof end);
        end += (uint32_t)column_value_bytes(&column->keys[i]);
    }
    if (code == OMENDB_OK)
        code = columns_put(build, &end, sizeof end);
    if (code == OMENDB_OK)
        code = columns_begin_array(build, column->entry, COLUMNS_TEXTS);
    for (uint32_t i = 0; i < column->key_count && code == OMENDB_OK; i++) {
        const struct column_key *key = &column->keys[i];
        const uint8_t type = (uint8_t)key->type;
        code = columns_put(build, &type, sizeof type);
        if (code == OMENDB_OK)
            code = key->type == DOCUMENT_TEXT
                       ? columns_put(build, (const void *)(uintptr_t)key->bits, key->size)
                       : columns_put(build, &key->bits, sizeof key->bits);
    }
    return code;
}

/* Counts the rows of each rank, and lists them: a sort by counting. `begins` has key_count + 1
 * places, `rows` used_elements or, of a dense column, `present`. */
static void column_list_rows(const struct columns_build *build, const struct column_build *column,
                             uint32_t *begins, uint32_t *rows)
{
    const int dense = column->kind == COLUMN_DENSE;
    const uint32_t slots = dense ? build->rows : column->slots;
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t slot = 0; slot < slots; slot++) {
            const uint32_t row = column->kind == COLUMN_SPARSE ? column->places[slot] : slot;
            const uint32_t first = dense ? slot : column->starts[slot];
            const uint32_t last = dense ? slot + 1 : column->starts[slot + 1];
            for (uint32_t i = first; i < last; i++) {
                const uint32_t rank = column->numbers[i] - (uint32_t)dense;
                if (rank >= column->key_count)
                    continue;
                if (pass == 0)
                    begins[rank + 1]++;
                else
                    rows[begins[rank]++] = row;
            }
        }
        for (uint32_t rank = 0; pass == 0 && rank < column->key_count; rank++)
            begins[rank + 1] += begins[rank];
    }
    /* Each has moved on to where the next began. */
    memmove(begins + 1, begins, column->key_count * sizeof *begins);
    begins[0] = 0;
}

/* The rows of each rank, and which of them are packed. */
struct columns_lists {
    const uint32_t *begins, *rows;
    const uint8_t *is_packed;
    uint32_t ranks, packed_count;
};

/* Where packs and shorts go on. */
struct columns_packing {
    uint32_t rank, rows, packs, shorts;
};

static int columns_put_packed(struct columns_build *build, const struct columns_packing *packing)
{
    uint8_t entry[COLUMN_PACKED_BYTES];
    format_put32(entry + COLUMN_PACKED_RANK, packing->rank);
    format_put32(entry + COLUMN_PACKED_BEFORE, packing->rows);
    format_put32(entry + COLUMN_PACKED_FIRST, packing->packs);
    return columns_put(build, entry, sizeof entry);
}

static int columns_put_pack(struct columns_build *build, const struct column_pack *pack,
                            uint32_t shorts)
{
    uint8_t entry[COLUMN_PACK_BYTES];
    const uint16_t part = (uint16_t)pack->part, kind = (uint16_t)pack->kind;
    format_put32(entry + COLUMN_PACK_SHORTS, shorts);
    format_put32(entry + COLUMN_PACK_COUNT, pack->count);
    memcpy(entry + COLUMN_PACK_PART, &part, sizeof part);
    memcpy(entry + COLUMN_PACK_KIND, &kind, sizeof kind);
    return columns_put(build, entry, sizeof entry);
}

static int columns_put_bits(struct columns_build *build, const uint32_t *rows,
                            const struct column_pack *pack)
{
    uint64_t words[COLUMN_PACK_ROWS / 64] = {0};
    for (uint32_t i = pack->first; i < pack->last; i++) {
        const uint32_t bit = rows[i] % COLUMN_PACK_ROWS;
        words[bit / 64] |= UINT64_C(1) << (bit % 64);
    }
    return columns_put(build, words, (size_t)pack->count * sizeof *words);
}

static int columns_put_shorts(struct columns_build *build, const uint32_t *rows,
                              const struct column_pack *pack)
{
    uint16_t shorts[COLUMNS_SHORTS_AT_A_TIME + 2];
    size_t count = 0;
    int code = OMENDB_OK;
    if (pack->kind == COLUMN_PACK_BITS)
        return columns_put_bits(build, rows, pack);
    for (uint32_t i = pack->first; i < pack->last && code == OMENDB_OK; i++) {
        const int begins = i == pack->first || rows[i] != rows[i - 1] + 1,
                  ends = i + 1 == pack->last || rows[i + 1] != rows[i] + 1;
        shorts[count] = (uint16_t)(rows[i] % COLUMN_PACK_ROWS);
        count += pack->kind == COLUMN_PACK_LIST || begins;
        shorts[count] = (uint16_t)(rows[i] % COLUMN_PACK_ROWS);
        count += pack->kind == COLUMN_PACK_RUNS && ends;
        if (count < COLUMNS_SHORTS_AT_A_TIME && i + 1 < pack->last)
            continue;
        code = columns_put(build, shorts, count * sizeof *shorts);
        count = 0;
    }
    return code;
}

/* One array of the packed ranks: `field` says which. *end: behind the last. */
static int columns_put_packs(struct columns_build *build, const struct columns_lists *lists,
                             size_t field, struct columns_packing *end)
{
    struct columns_packing packing = {0};
    int code = OMENDB_OK;
    for (; packing.rank < lists->ranks && code == OMENDB_OK; packing.rank++) {
        const uint32_t *rows = lists->rows + lists->begins[packing.rank];
        const uint32_t count = lists->begins[packing.rank + 1] - lists->begins[packing.rank];
        struct column_pack pack;
        if (!lists->is_packed[packing.rank])
            continue;
        if (field == COLUMNS_PACKED)
            code = columns_put_packed(build, &packing);
        for (uint32_t first = 0; first < count && code == OMENDB_OK; first = pack.last) {
            column_pack_at(rows, count, first, build->rows, &pack);
            if (field == COLUMNS_PACKS)
                code = columns_put_pack(build, &pack, packing.shorts);
            else if (field == COLUMNS_SHORTS)
                code = columns_put_shorts(build, rows, &pack);
            packing.packs++;
            packing.shorts += pack.shorts;
        }
        packing.rows += count;
    }
    *end = packing;
    return code;
}

static int columns_put_plain(struct columns_build *build, const struct columns_lists *lists)
{
    int code = OMENDB_OK;
    for (uint32_t first = 0, last; first < lists->ranks && code == OMENDB_OK; first = last + 1) {
        for (last = first; last < lists->ranks && !lists->is_packed[last];)
            last++;
        const uint32_t begin = lists->begins[first], end = lists->begins[last];
        code = columns_put_numbers(build, lists->rows + begin, end - begin);
    }
    return code;
}

static int columns_put_lists(struct columns_build *build, const struct columns_lists *lists,
                             uint8_t *entry)
{
    static const size_t fields[] = {COLUMNS_PACKED, COLUMNS_PACKS, COLUMNS_SHORTS};
    struct columns_packing end = {0};
    int code = columns_begin_array(build, entry, COLUMNS_COUNTS);
    if (code == OMENDB_OK)
        code = columns_put_numbers(build, lists->begins, (size_t)lists->ranks + 1);
    if (code == OMENDB_OK)
        code = columns_begin_array(build, entry, COLUMNS_ROWS);
    if (code == OMENDB_OK)
        code = columns_put_plain(build, lists);
    for (size_t i = 0; i < 3 && code == OMENDB_OK && lists->packed_count != 0; i++) {
        code = columns_begin_array(build, entry, fields[i]);
        if (code == OMENDB_OK)
            code = columns_put_packs(build, lists, fields[i], &end);
        if (code == OMENDB_OK && fields[i] == COLUMNS_PACKED)
            code = columns_put_packed(build, &end);
    }
    format_put32(entry + COLUMNS_PACKED_COUNT, lists->packed_count);
    format_put32(entry + COLUMNS_SHORT_COUNT, end.shorts);
    return code;
}

static int columns_put_rows(struct columns_build *build, struct column_build *column)
{
    struct memory *memory = build->memory;
    const size_t begin_count = (size_t)column->key_count + 1;
    const size_t most = column->kind == COLUMN_DENSE ? column->present : column->used_elements;
    uint32_t *begins = memory_zalloc(memory, begin_count * sizeof *begins);
    uint32_t *rows = memory_array(memory, most, sizeof *rows);
    uint8_t *is_packed = memory_zalloc(memory, begin_count);
    struct columns_lists lists = {begins, rows, is_packed, column->key_count, 0};
    int code = begins == NULL || rows == NULL || is_packed == NULL ? OMENDB_NOMEM : OMENDB_OK;
    if (code == OMENDB_OK)
        column_list_rows(build, column, begins, rows);
    for (uint32_t rank = 0; rank < lists.ranks && code == OMENDB_OK; rank++) {
        is_packed[rank] = (uint8_t)column_packs_pay(rows + begins[rank],
                                                    begins[rank + 1] - begins[rank], build->rows);
        lists.packed_count += is_packed[rank];
    }
    if (code == OMENDB_OK)
        code = columns_put_lists(build, &lists, column->entry);
    memory_free(memory, begins, begin_count * sizeof *begins);
    memory_free(memory, rows, most * sizeof *rows);
    memory_free(memory, is_packed, begin_count);
    return code;
}

static int columns_put_column(struct columns_build *build, struct column_build *column)
{
    const int dense = column->kind == COLUMN_DENSE;
    /* A dense rank is stored 1 higher, an empty array as the number of values. */
    const uint32_t greatest = column->key_count;
    const uint32_t rank_bytes = greatest <= UINT8_MAX ? 1 : greatest <= UINT16_MAX ? 2 : 4;
    int code = column_rank_values(build->memory, column, build->rows);
    if (code != OMENDB_OK)
        return code;
    if (!dense)
        column_sort_slots(column);
    format_put32(column->entry + COLUMNS_RANK_BYTES, rank_bytes);
    format_put32(column->entry + COLUMNS_VALUES, column->key_count);
    format_put32(column->entry + COLUMNS_PRESENT, column->present);
    format_put32(column->entry + COLUMNS_SLOTS, column->slots);
    format_put32(column->entry + COLUMNS_ELEMENTS, dense ? 0 : column->used_elements);
    code = columns_begin_array(build, column->entry, COLUMNS_RANKS);
    if (code == OMENDB_OK)
        code = columns_put_ranks(build, column, dense ? build->rows : column->used_elements,
                                 rank_bytes);
    if (code == OMENDB_OK && !dense) {
        code = columns_begin_array(build, column->entry, COLUMNS_STARTS);
        if (code == OMENDB_OK)
            code = columns_put_numbers(build, column->starts, (size_t)column->slots + 1);
    }
    if (code == OMENDB_OK && column->kind == COLUMN_SPARSE) {
        code = columns_begin_array(build, column->entry, COLUMNS_PLACES);
        if (code == OMENDB_OK)
            code = columns_put_numbers(build, column->places, column->slots);
    }
    if (code == OMENDB_OK)
        code = columns_put_values(build, column);
    return code == OMENDB_OK ? columns_put_rows(build, column) : code;
}

static int columns_put_name(struct columns_build *build, struct column_build *column,
                            enum column_kind kind)
{
    int code = columns_begin_array(build, column->entry, COLUMNS_NAME);
    format_put32(column->entry + COLUMNS_NAME_BYTES, column->name_size);
    format_put32(column->entry + COLUMNS_KIND, (uint32_t)kind);
    return code == OMENDB_OK ? columns_put(build, column->name, column->name_size) : code;
}

/* Notes the values of the columns [first, last), all in one pass. */
static int columns_gather(struct columns_build *build, uint32_t first, uint32_t last)
{
    int code = OMENDB_OK;
    for (uint32_t i = first; i < last && code == OMENDB_OK; i++)
        code = column_begin_group(build, build->order[i]);
    for (uint32_t row = 0; row < build->rows && code == OMENDB_OK; row++)
        code = columns_gather_row(build, first, last, row);
    return code;
}

static void columns_end_group(struct columns_build *build, uint32_t first, uint32_t last)
{
    for (uint32_t i = first; i < last; i++)
        column_end_group(build, build->order[i]);
}

static int columns_put_gathered(struct columns_build *build, struct column_build *column)
{
    const int too_large = column->value_bytes > UINT32_MAX;
    int code = columns_put_name(build, column, too_large ? COLUMN_NONE : column->kind);
    if (code != OMENDB_OK || column->kind == COLUMN_NONE || too_large)
        return code;
    /* Slots that were not filled begin, and end, where the last one did. */
    for (uint32_t slot = column->kind == COLUMN_SPARSE ? column->used_slots : build->rows;
         column->starts != NULL && slot <= column->slots; slot++)
        column->starts[slot] = column->used_elements;
    code = columns_put_column(build, column);
    if (code != OMENDB_NOMEM)
        return code;
    /* What was written of it stays, and nothing leads to it. */
    format_put32(column->entry + COLUMNS_KIND, COLUMN_NONE);
    return OMENDB_OK;
}

/* The columns [first, last). */
static int columns_make_group(struct columns_build *build, uint32_t first, uint32_t last)
{
    int code = columns_gather(build, first, last);
    for (uint32_t i = first; i < last && code == OMENDB_OK; i++)
        code = columns_put_gathered(build, build->order[i]);
    columns_end_group(build, first, last);
    return code;
}

/* Without memory for all of them each by itself; without memory for one there is none. */
static int columns_try_group(struct columns_build *build, uint32_t first, uint32_t last)
{
    int code = columns_make_group(build, first, last);
    for (uint32_t i = first; i < last && code == OMENDB_NOMEM; i++) {
        int single = last - first == 1 ? OMENDB_NOMEM : columns_make_group(build, i, i + 1);
        if (single == OMENDB_NOMEM) {
            build->order[i]->kind = COLUMN_NONE;
            single = columns_put_name(build, build->order[i], COLUMN_NONE);
        }
        if (single != OMENDB_OK || i + 1 == last)
            code = single;
    }
    return code;
}

static int columns_write_all(struct columns_build *build, size_t most)
{
    uint8_t tail[COLUMNS_TAIL_BYTES], ignored[8] = {0};
    int code = segment_writer_begin_section(build->writer, SECTION_COLUMNS);
    for (uint32_t first = 0, last; first < build->count && code == OMENDB_OK; first = last) {
        size_t needs = column_needs(build, build->order[first]);
        for (last = first + 1; last < build->count; last++) {
            needs = memory_add(needs, column_needs(build, build->order[last]));
            if (needs > most)
                break;
        }
        code = columns_try_group(build, first, last);
    }
    if (code == OMENDB_OK)
        code = columns_begin_array(build, ignored, 0);
    format_put64(tail, build->at);
    format_put32(tail + 8, build->count);
    format_put32(tail + 12, (uint32_t)build->incomplete);
    for (uint32_t i = 0; i < build->count && code == OMENDB_OK; i++)
        code = columns_put(build, build->order[i]->entry, COLUMNS_ENTRY_BYTES);
    return code == OMENDB_OK ? columns_put(build, tail, sizeof tail) : code;
}

OMENDB_INTERNAL int columns_write(struct segment_writer *writer, struct memory *memory,
                                  const struct hash_seed *seed, const struct columns_source *source,
                                  uint32_t rows, size_t most)
{
    struct columns_build build = {
        .writer = writer, .memory = memory, .seed = seed, .source = source, .rows = rows};
    const size_t column_bytes = COLUMNS_MAX * sizeof *build.columns,
                 order_bytes = COLUMNS_MAX * sizeof *build.order,
                 field_bytes = COLUMNS_FIELD_SLOTS * sizeof *build.fields;
    build.columns = memory_zalloc(memory, column_bytes);
    build.order = memory_zalloc(memory, order_bytes);
    build.fields = memory_zalloc(memory, field_bytes);
    int code = build.columns == NULL || build.order == NULL || build.fields == NULL ? OMENDB_NOMEM
                                                                                    : OMENDB_OK;
    if (code == OMENDB_OK)
        code = columns_count(&build);
    if (code == OMENDB_OK && build.count != 0) {
        columns_settle(&build);
        code = columns_write_all(&build, most);
    } else if (code == OMENDB_NOMEM) {
        code = OMENDB_OK; /* the documents answer */
    }
    memory_free(memory, build.columns, build.columns == NULL ? 0 : column_bytes);
    memory_free(memory, (void *)build.order, build.order == NULL ? 0 : order_bytes);
    memory_free(memory, build.fields, build.fields == NULL ? 0 : field_bytes);
    return code;
}

#undef COLUMNS_SPARSE_PART
#undef COLUMNS_TABLE_MIN
#undef COLUMNS_SHORTS_AT_A_TIME
#undef COLUMNS_VALUE_BYTES
#undef COLUMNS_FIELD_SLOTS
#undef COLUMNS_NO_NUMBER
