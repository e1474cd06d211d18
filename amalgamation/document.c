/* document.c: see document.h.
 *
 * A document is made of pieces, one a field: its name and its value as they are stored. Reading
 * JSON writes each piece once into a block for it, in the order of the text, beside an array of
 * their numbers that is kept in the order of names, by which a second field of a name is noticed
 * where it stands; then they are copied to their places. A merge begins with the pieces of the
 * document that there is.
 *
 * Memory: one block while reading, which the length of the JSON bounds, at most 1.1 MiB; and the
 * document itself. */
#include "document.h"

#include "error.h"
#include "format.h"
#include "idmap.h"
#include "json.h"

#include <assert.h>
#include <math.h>

#define DOCUMENT_ABOUT       "metadata"
#define DOCUMENT_FIELD_LEAST 5 /* bytes of JSON: "":1 and a comma or brace */
#define DOCUMENT_TEXTS_BYTES 8 /* before the texts of an array: bytes, count */
#define DOCUMENT_ALLOWED     "a text, a number, true, false, null or an array of texts"
#define DOCUMENT_HASH_FACTOR UINT64_C(0x9fb21c651e98df25)

/* A field in the table of a document. */
enum document_entry {
    DOCUMENT_ENTRY_HASH = 0,
    DOCUMENT_ENTRY_OFFSET = 4,
    DOCUMENT_ENTRY_NAME_BYTES = 8,
    DOCUMENT_ENTRY_TYPE = 10,
    DOCUMENT_ENTRY_ZERO = 11
};
_Static_assert(DOCUMENT_ENTRY_ZERO + 1 == DOCUMENT_FIELD_BYTES, "the entry ends with its zero");

static uint32_t document_name_bytes(const uint8_t *entry)
{
    return (uint32_t)entry[DOCUMENT_ENTRY_NAME_BYTES] |
           (uint32_t)entry[DOCUMENT_ENTRY_NAME_BYTES + 1] << 8;
}

static void document_put_head(uint8_t *document, uint32_t size, uint16_t key_size, uint16_t fields)
{
    memcpy(document, &size, sizeof size);
    memcpy(document + 4, &key_size, sizeof key_size);
    memcpy(document + 6, &fields, sizeof fields);
}

/* ------------------------------------------------------------------------------------------------
 * hashes and orders */

/* Eight bytes at a time; each step is a bijection of what there was, so that of two texts of one
 * length that differ in one such group the sums differ. The end is that of idmap_mix. */
OMENDB_INTERNAL uint32_t document_hash_name(const uint8_t *name, size_t size)
{
    uint64_t sum = (uint64_t)size * DOCUMENT_HASH_FACTOR, eight;
    for (; size >= sizeof eight; name += sizeof eight, size -= sizeof eight) {
        memcpy(&eight, name, sizeof eight);
        sum = (sum ^ eight) * DOCUMENT_HASH_FACTOR;
        sum ^= sum >> 32;
    }
    eight = 0;
    for (size_t i = 0; i < size; i++)
        eight |= (uint64_t)name[i] << (8 * i);
    sum = (sum ^ eight) * DOCUMENT_HASH_FACTOR;
    return (uint32_t)idmap_mix(sum);
}

/* By bytes; of two that begin alike the shorter is less. */
static int document_compare_bytes(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size)
{
    const size_t size = a_size < b_size ? a_size : b_size;
    const int order = size == 0 ? 0 : memcmp(a, b, size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

/* Exact: the whole part of a double below 2^63 is an int64_t. */
static int document_compare_integer(int64_t integer, double real)
{
    if (real >= 0x1p63)
        return -1;
    if (real < -0x1p63)
        return 1;
    const int64_t whole = (int64_t)real;
    const double rest = real - (double)whole;
    if (integer != whole)
        return integer < whole ? -1 : 1;
    return (rest < 0) - (rest > 0);
}

static int document_compare_numbers(const struct document_value *a, const struct document_value *b)
{
    if (a->type == DOCUMENT_INTEGER && b->type == DOCUMENT_INTEGER)
        return (a->integer > b->integer) - (a->integer < b->integer);
    if (a->type == DOCUMENT_INTEGER)
        return document_compare_integer(a->integer, b->real);
    if (b->type == DOCUMENT_INTEGER)
        return -document_compare_integer(b->integer, a->real);
    return (a->real > b->real) - (a->real < b->real);
}

/* Text by text; of two arrays that begin alike the shorter is less. */
static int document_compare_texts(const struct document_value *a, const struct document_value *b)
{
    uint32_t a_at = 0, b_at = 0, a_size, b_size;
    const uint8_t *a_text, *b_text;
    for (;;) {
        const int a_more = document_next_text(a, &a_at, &a_text, &a_size);
        const int b_more = document_next_text(b, &b_at, &b_text, &b_size);
        if (!a_more || !b_more)
            return a_more - b_more;
        const int order = document_compare_bytes(a_text, a_size, b_text, b_size);
        if (order != 0)
            return order;
    }
}

OMENDB_INTERNAL int document_compare(const struct document_value *a, const struct document_value *b)
{
    static const uint8_t ranks[DOCUMENT_TYPES] = {0, 1, 2, 3, 3, 4, 5};
    if (ranks[a->type] != ranks[b->type])
        return ranks[a->type] < ranks[b->type] ? -1 : 1;
    switch (a->type) {
    case DOCUMENT_INTEGER:
    case DOCUMENT_REAL:
        return document_compare_numbers(a, b);
    case DOCUMENT_TEXT:
        return document_compare_bytes(a->text, a->size, b->text, b->size);
    case DOCUMENT_TEXTS:
        return document_compare_texts(a, b);
    default:
        return 0;
    }
}

/* ------------------------------------------------------------------------------------------------
 * reading a document */

/* The value stored at `at`; returns its bytes. */
static size_t document_read_value(const uint8_t *at, enum document_type type,
                                  struct document_value *value)
{
    memset(value, 0, sizeof *value);
    value->type = type;
    switch (type) {
    case DOCUMENT_INTEGER:
        memcpy(&value->integer, at, sizeof value->integer);
        return sizeof value->integer;
    case DOCUMENT_REAL:
        memcpy(&value->real, at, sizeof value->real);
        return sizeof value->real;
    case DOCUMENT_TEXT:
        value->size = format_get32(at);
        value->text = at + sizeof value->size;
        return sizeof value->size + (size_t)value->size;
    case DOCUMENT_TEXTS:
        value->size = format_get32(at);
        value->count = format_get32(at + sizeof value->size);
        value->text = at + DOCUMENT_TEXTS_BYTES;
        return DOCUMENT_TEXTS_BYTES + (size_t)value->size;
    default:
        return 0;
    }
}

OMENDB_INTERNAL void document_field(const uint8_t *document, uint32_t index,
                                    struct document_field *field)
{
    const uint8_t *entry = document + DOCUMENT_HEAD_BYTES + (size_t)index * DOCUMENT_FIELD_BYTES;
    assert(index < document_field_count(document));
    field->name = document + format_get32(entry + DOCUMENT_ENTRY_OFFSET);
    field->name_size = document_name_bytes(entry);
    document_read_value(field->name + field->name_size,
                        (enum document_type)entry[DOCUMENT_ENTRY_TYPE], &field->value);
}

OMENDB_INTERNAL int document_find(const uint8_t *document, const uint8_t *name, uint32_t name_size,
                                  uint32_t hash, struct document_value *value)
{
    const uint32_t count = document_field_count(document);
    struct document_field field;
    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *entry = document + DOCUMENT_HEAD_BYTES + (size_t)i * DOCUMENT_FIELD_BYTES;
        if (format_get32(entry) != hash || document_name_bytes(entry) != name_size)
            continue;
        document_field(document, i, &field);
        if (document_compare_bytes(field.name, name_size, name, name_size) != 0)
            continue;
        *value = field.value;
        return 1;
    }
    memset(value, 0, sizeof *value);
    return 0;
}

OMENDB_INTERNAL int document_next_text(const struct document_value *texts, uint32_t *at,
                                       const uint8_t **text, uint32_t *size)
{
    if (*at >= texts->size)
        return 0;
    *size = format_get32(texts->text + *at);
    *text = texts->text + *at + sizeof *size;
    *at += (uint32_t)sizeof *size + *size;
    return 1;
}

/* ------------------------------------------------------------------------------------------------
 * bytes from outside */

static int document_is_utf8(const uint8_t *text, size_t size)
{
    return json_utf8_bytes(text, size) == size;
}

/* The texts of an array, which fill `size` bytes. */
static const char *document_check_texts(const uint8_t *at, size_t size, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (size < sizeof(uint32_t) || format_get32(at) > size - sizeof(uint32_t))
            return "a text of an array is longer than the array";
        const size_t text = format_get32(at);
        if (!document_is_utf8(at + sizeof(uint32_t), text))
            return "a text of an array is not UTF-8";
        at += sizeof(uint32_t) + text;
        size -= sizeof(uint32_t) + text;
    }
    return size == 0 ? NULL : "an array is longer than its texts";
}

/* Of the `left` bytes at `at` the value takes *used. */
static const char *document_check_value(const uint8_t *at, size_t left, uint8_t type, size_t *used)
{
    static const uint8_t least[DOCUMENT_TYPES] = {0, 0, 0, 8, 8, 4, DOCUMENT_TEXTS_BYTES};
    struct document_value value;
    if (type >= DOCUMENT_TYPES)
        return "a field has a type that is not known";
    if (left < least[type])
        return "a value reaches beyond the end";
    *used = document_read_value(at, (enum document_type)type, &value);
    if (value.size > left - least[type])
        return "a value reaches beyond the end";
    if (type == DOCUMENT_REAL && !isfinite(value.real))
        return "a number is not finite";
    if (type == DOCUMENT_TEXT && !document_is_utf8(value.text, value.size))
        return "a text is not UTF-8";
    if (type == DOCUMENT_TEXTS)
        return document_check_texts(value.text, value.size, value.count);
    return NULL;
}

/* The field of number `index`, whose name must lie at *at; moves *at behind its value. */
static const char *document_check_field(const uint8_t *document, size_t size, uint32_t index,
                                        size_t *at)
{
    const uint8_t *entry = document + DOCUMENT_HEAD_BYTES + (size_t)index * DOCUMENT_FIELD_BYTES;
    const uint8_t *name = document + *at, *before = entry - DOCUMENT_FIELD_BYTES;
    const uint32_t name_size = document_name_bytes(entry);
    size_t used = 0;
    if (format_get32(entry + DOCUMENT_ENTRY_OFFSET) != *at)
        return "a field does not lie behind the one before it";
    if (name_size > DOCUMENT_NAME_MAX || name_size > size - *at)
        return "a name is too long";
    if (!document_is_utf8(name, name_size))
        return "a name is not UTF-8";
    if (format_get32(entry) != document_hash_name(name, name_size))
        return "the hash of a name is wrong";
    if (entry[DOCUMENT_ENTRY_ZERO] != 0)
        return "a byte that must be 0 is not";
    if (index > 0 && document_compare_bytes(document + format_get32(before + DOCUMENT_ENTRY_OFFSET),
                                            document_name_bytes(before), name, name_size) >= 0)
        return "names do not ascend";
    *at += name_size;
    const char *wrong =
        document_check_value(document + *at, size - *at, entry[DOCUMENT_ENTRY_TYPE], &used);
    *at += used;
    return wrong;
}

/* Valid UTF-8 without a NUL: callers give it as a string. */
static size_t document_key_legal_bytes(const uint8_t *key, size_t size)
{
    const uint8_t *nul = memchr(key, 0, size);
    return json_utf8_bytes(key, nul == NULL ? size : (size_t)(nul - key));
}

OMENDB_INTERNAL const char *document_check(const uint8_t *document, size_t size)
{
    const char *wrong = NULL;
    uint32_t key_size;
    if (size < DOCUMENT_HEAD_BYTES || size > DOCUMENT_BYTES_MAX || size % 8 != 0)
        return "a length that none has";
    if (document_size(document) != size)
        return "another length than it says";
    const uint32_t count = document_field_count(document);
    const uint8_t *key = document_key(document, &key_size);
    size_t at = DOCUMENT_HEAD_BYTES + (size_t)count * DOCUMENT_FIELD_BYTES + key_size;
    if (count == 0 && key_size == 0)
        return "neither a key nor a field";
    if (count > DOCUMENT_FIELDS_MAX || key_size > DOCUMENT_KEY_MAX || at > size)
        return "more fields, or a longer key, than fit";
    if (key_size > 0 && document_key_legal_bytes(key, key_size) != key_size)
        return "the key is not UTF-8, or has a NUL";
    for (uint32_t i = 0; i < count && wrong == NULL; i++)
        wrong = document_check_field(document, size, i, &at);
    if (wrong != NULL)
        return wrong;
    if (size - at >= 8)
        return "longer than its fields";
    for (; at < size; at++)
        if (document[at] != 0)
            return "padding that is not 0";
    return NULL;
}

/* ------------------------------------------------------------------------------------------------
 * making a document */

struct document_piece {
    const uint8_t *bytes; /* name, value */
    uint32_t size;        /* of both */
    uint32_t hash;
    uint16_t name_size;
    uint8_t type;
};

struct document_builder {
    struct memory *memory;
    void *block; /* of the three arrays */
    size_t block_size;
    struct document_piece *pieces;
    uint16_t *order; /* numbers of pieces, ascending by name; of each name its last */
    uint32_t count, capacity;
    uint32_t ordered;
    uint32_t old; /* pieces that may be replaced: those of the document that is merged into */
    uint8_t *bytes;
    size_t used, bytes_capacity;
};

/* For what JSON of so many bytes can hold, beside the fields of `base`. A field takes fewer than
 * two bytes for each of JSON, so that only what is too big for a document does not fit. */
static int document_begin(struct document_builder *builder, struct memory *memory,
                          const uint8_t *base, size_t json_size)
{
    const size_t most = json_size / DOCUMENT_FIELD_LEAST + 1;
    memset(builder, 0, sizeof *builder);
    builder->memory = memory;
    builder->capacity = document_field_count(base) +
                        (most < DOCUMENT_FIELDS_MAX ? (uint32_t)most : DOCUMENT_FIELDS_MAX);
    builder->bytes_capacity =
        json_size < DOCUMENT_BYTES_MAX / 2 ? 2 * json_size : DOCUMENT_BYTES_MAX;
    const size_t pieces = builder->capacity * sizeof *builder->pieces;
    const size_t order = builder->capacity * sizeof *builder->order;
    builder->block_size = pieces + order + builder->bytes_capacity;
    builder->block = memory_alloc(memory, builder->block_size);
    if (builder->block == NULL)
        return OMENDB_NOMEM;
    builder->pieces = builder->block;
    builder->order = (uint16_t *)(builder->pieces + builder->capacity);
    builder->bytes = (uint8_t *)(builder->order + builder->capacity);
    return OMENDB_OK;
}

static void document_end(struct document_builder *builder)
{
    memory_free(builder->memory, builder->block, builder->block_size);
}

static void document_add_old(struct document_builder *builder, const uint8_t *base)
{
    struct document_field field;
    const uint32_t count = document_field_count(base);
    for (uint32_t i = 0; i < count; i++) {
        document_field(base, i, &field);
        const size_t value =
            document_read_value(field.name + field.name_size, field.value.type, &field.value);
        builder->pieces[i] =
            (struct document_piece){.bytes = field.name,
                                    .size = (uint32_t)(field.name_size + value),
                                    .hash = document_hash_name(field.name, field.name_size),
                                    .name_size = (uint16_t)field.name_size,
                                    .type = (uint8_t)field.value.type};
        builder->order[i] = (uint16_t)i;
    }
    builder->count = builder->ordered = builder->old = count;
}

/* Where a name stands in the order, or belongs. 1: it is there. */
static int document_place(const struct document_builder *builder, const uint8_t *name,
                          size_t name_size, uint32_t *place)
{
    uint32_t from = 0, to = builder->ordered;
    /* Fields often come in order. */
    uint32_t middle = to == 0 ? 0 : to - 1;
    while (from < to) {
        const struct document_piece *piece = &builder->pieces[builder->order[middle]];
        const int order = document_compare_bytes(name, name_size, piece->bytes, piece->name_size);
        if (order == 0) {
            *place = middle;
            return 1;
        }
        if (order < 0)
            to = middle;
        else
            from = middle + 1;
        middle = from + (to - from) / 2;
    }
    *place = from;
    return 0;
}

static int document_is_too_big(const char *what, size_t have, size_t most)
{
    return error_set(OMENDB_TOOBIG, DOCUMENT_ABOUT ": %zu %s; %zu are allowed", have, what, most);
}

/* A piece for the field whose name is in `bytes` and stands in the JSON at `at`. */
static int document_add_piece(struct document_builder *builder, size_t at, size_t name_size)
{
    const uint8_t *name = builder->bytes + builder->used;
    uint32_t place;
    if (name_size > DOCUMENT_NAME_MAX)
        return error_set(OMENDB_TOOBIG,
                         DOCUMENT_ABOUT
                         ": byte %zu: the name of a field has %zu bytes; %d are allowed",
                         at, name_size, DOCUMENT_NAME_MAX);
    const int found = document_place(builder, name, name_size, &place);
    if (found && builder->order[place] >= builder->old)
        return error_set(OMENDB_INVALID,
                         DOCUMENT_ABOUT ": byte %zu: a second field of the same name", at);
    if (builder->count == builder->capacity)
        return document_is_too_big("fields or more", DOCUMENT_FIELDS_MAX + 1, DOCUMENT_FIELDS_MAX);
    if (!found) {
        memmove(builder->order + place + 1, builder->order + place,
                (builder->ordered - place) * sizeof *builder->order);
        builder->ordered++;
    }
    builder->order[place] = (uint16_t)builder->count;
    builder->pieces[builder->count++] =
        (struct document_piece){.bytes = name,
                                .hash = document_hash_name(name, name_size),
                                .name_size = (uint16_t)name_size};
    builder->used += name_size;
    return OMENDB_OK;
}

/* So many bytes of the block, or NULL with the error. */
static uint8_t *document_take_bytes(struct document_builder *builder, size_t size)
{
    uint8_t *bytes = builder->bytes + builder->used;
    if (size > builder->bytes_capacity - builder->used) {
        document_is_too_big("bytes or more", DOCUMENT_BYTES_MAX + 1, DOCUMENT_BYTES_MAX);
        return NULL;
    }
    builder->used += size;
    return bytes;
}

static int document_put_bytes(struct document_builder *builder, const void *bytes, size_t size)
{
    uint8_t *place = document_take_bytes(builder, size);
    if (place == NULL)
        return OMENDB_TOOBIG;
    memcpy(place, bytes, size);
    return OMENDB_OK;
}

/* Its bytes, and their count before them. */
static int document_put_text(struct document_builder *builder, struct json_reader *reader)
{
    uint8_t *place = document_take_bytes(builder, sizeof(uint32_t));
    size_t size = 0;
    if (place == NULL)
        return OMENDB_TOOBIG;
    const int code = json_take_text(reader, builder->bytes + builder->used,
                                    builder->bytes_capacity - builder->used, &size);
    format_put32(place, (uint32_t)size);
    builder->used += size;
    return code == OMENDB_TOOBIG
               ? document_is_too_big("bytes or more", DOCUMENT_BYTES_MAX + 1, DOCUMENT_BYTES_MAX)
               : code;
}

static int document_put_number(struct document_builder *builder, struct json_reader *reader,
                               uint8_t *type)
{
    struct json_number number;
    const int code = json_take_number(reader, &number);
    *type = number.is_integer ? DOCUMENT_INTEGER : DOCUMENT_REAL;
    if (code != OMENDB_OK)
        return code;
    return number.is_integer ? document_put_bytes(builder, &number.integer, sizeof number.integer)
                             : document_put_bytes(builder, &number.real, sizeof number.real);
}

/* An array whose bracket stands here. */
static int document_put_texts(struct document_builder *builder, struct json_reader *reader)
{
    uint8_t *place = document_take_bytes(builder, DOCUMENT_TEXTS_BYTES);
    const size_t start = builder->used;
    uint32_t count = 0;
    int code = place == NULL ? OMENDB_TOOBIG : json_take(reader, '[', "'['");
    if (code != OMENDB_OK)
        return code;
    for (int next = json_next(reader); next != ']' || count > 0; next = json_next(reader)) {
        if (next != '"')
            return json_expected(reader, reader->at, "a text (an array is of texts only)");
        code = document_put_text(builder, reader);
        count++;
        if (code != OMENDB_OK || json_next(reader) != ',')
            break;
        reader->at++;
    }
    if (code == OMENDB_OK)
        code = json_take(reader, ']', "',' or ']' after a text of an array");
    format_put32(place, (uint32_t)(builder->used - start));
    format_put32(place + sizeof count, count);
    return code;
}

static int document_put_word(struct json_reader *reader, enum document_type type, uint8_t *out)
{
    static const char *const words[] = {"null", "false", "true"};
    *out = (uint8_t)type;
    return json_take_word(reader, words[type]);
}

static int document_put_value(struct document_builder *builder, struct json_reader *reader,
                              uint8_t *type)
{
    const int next = json_next(reader);
    switch (next) {
    case '"':
        *type = DOCUMENT_TEXT;
        return document_put_text(builder, reader);
    case '[':
        *type = DOCUMENT_TEXTS;
        return document_put_texts(builder, reader);
    case 'n':
        return document_put_word(reader, DOCUMENT_NULL, type);
    case 'f':
        return document_put_word(reader, DOCUMENT_FALSE, type);
    case 't':
        return document_put_word(reader, DOCUMENT_TRUE, type);
    default:
        if (next == '-' || (next >= '0' && next <= '9'))
            return document_put_number(builder, reader, type);
        return json_expected(reader, reader->at, DOCUMENT_ALLOWED);
    }
}

/* A field: name, colon, value. */
static int document_put_field(struct document_builder *builder, struct json_reader *reader)
{
    size_t name_size = 0;
    if (json_next(reader) != '"')
        return json_expected(reader, reader->at, "the name of a field in quotes");
    const size_t at = reader->at;
    int code = json_take_text(reader, builder->bytes + builder->used,
                              builder->bytes_capacity - builder->used, &name_size);
    if (code == OMENDB_TOOBIG)
        return document_is_too_big("bytes or more", DOCUMENT_BYTES_MAX + 1, DOCUMENT_BYTES_MAX);
    if (code == OMENDB_OK)
        code = document_add_piece(builder, at, name_size);
    if (code == OMENDB_OK)
        code = json_take(reader, ':', "':' after the name of a field");
    if (code != OMENDB_OK)
        return code;
    struct document_piece *piece = &builder->pieces[builder->count - 1];
    code = document_put_value(builder, reader, &piece->type);
    piece->size = (uint32_t)(builder->bytes + builder->used - piece->bytes);
    return code;
}

static int document_put_object(struct document_builder *builder, const char *json, size_t json_size)
{
    struct json_reader reader;
    json_begin(&reader, DOCUMENT_ABOUT, json, json_size);
    int code = json_take(&reader, '{', "'{': the fields of one object");
    int more = code == OMENDB_OK && json_next(&reader) != '}';
    while (more) {
        code = document_put_field(builder, &reader);
        more = code == OMENDB_OK && json_next(&reader) == ',';
        reader.at += (size_t)more;
    }
    if (code == OMENDB_OK)
        code = json_take(&reader, '}', "',' or '}' after the value of a field");
    return code == OMENDB_OK ? json_take_end(&reader) : code;
}

/* Null, where it is not a value: in a merge it removes the field. */
static void document_remove_nulls(struct document_builder *builder)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < builder->ordered; i++) {
        const uint16_t number = builder->order[i];
        if (number < builder->old || builder->pieces[number].type != DOCUMENT_NULL)
            builder->order[kept++] = number;
    }
    builder->ordered = kept;
}

/* The pieces in their order, behind head and key. `document` is zeroed. */
static void document_join(const struct document_builder *builder, const uint8_t *key,
                          size_t key_size, uint8_t *document, size_t size)
{
    uint8_t *entry = document + DOCUMENT_HEAD_BYTES;
    uint8_t *at = entry + (size_t)builder->ordered * DOCUMENT_FIELD_BYTES;
    document_put_head(document, (uint32_t)size, (uint16_t)key_size, (uint16_t)builder->ordered);
    if (key_size > 0)
        memcpy(at, key, key_size);
    at += key_size;
    for (uint32_t i = 0; i < builder->ordered; i++, entry += DOCUMENT_FIELD_BYTES) {
        const struct document_piece *piece = &builder->pieces[builder->order[i]];
        format_put32(entry + DOCUMENT_ENTRY_HASH, piece->hash);
        format_put32(entry + DOCUMENT_ENTRY_OFFSET, (uint32_t)(at - document));
        memcpy(entry + DOCUMENT_ENTRY_NAME_BYTES, &piece->name_size, sizeof piece->name_size);
        entry[DOCUMENT_ENTRY_TYPE] = piece->type;
        memcpy(at, piece->bytes, piece->size);
        at += piece->size;
    }
}

static int document_finish(const struct document_builder *builder, const uint8_t *key,
                           size_t key_size, uint8_t **document, size_t *size)
{
    size_t bytes = DOCUMENT_HEAD_BYTES + (size_t)builder->ordered * DOCUMENT_FIELD_BYTES + key_size;
    if (builder->ordered == 0 && key_size == 0)
        return OMENDB_OK;
    if (builder->ordered > DOCUMENT_FIELDS_MAX)
        return document_is_too_big("fields", builder->ordered, DOCUMENT_FIELDS_MAX);
    for (uint32_t i = 0; i < builder->ordered; i++)
        bytes += builder->pieces[builder->order[i]].size;
    bytes = (bytes + 7) & ~(size_t)7;
    if (bytes > DOCUMENT_BYTES_MAX)
        return document_is_too_big("bytes", bytes, DOCUMENT_BYTES_MAX);
    *document = memory_zalloc(builder->memory, bytes);
    if (*document == NULL)
        return OMENDB_NOMEM;
    document_join(builder, key, key_size, *document, bytes);
    *size = bytes;
    return OMENDB_OK;
}

static int document_check_key(const uint8_t *key, size_t size)
{
    if (size == 0)
        return error_set(OMENDB_INVALID, "a key has at least one byte");
    if (size > DOCUMENT_KEY_MAX)
        return error_set(OMENDB_TOOBIG, "the key has %zu bytes; %d are allowed", size,
                         DOCUMENT_KEY_MAX);
    const size_t legal = document_key_legal_bytes(key, size);
    if (legal < size)
        return error_set(OMENDB_INVALID, "the key has a NUL or bad UTF-8 at byte %zu", legal);
    return OMENDB_OK;
}

OMENDB_INTERNAL int document_create(struct memory *memory, const char *key, size_t key_size,
                                    const char *json, size_t json_size, uint8_t **document,
                                    size_t *size)
{
    struct document_builder builder;
    *document = NULL;
    *size = 0;
    int code = key == NULL ? OMENDB_OK : document_check_key((const uint8_t *)key, key_size);
    if (code == OMENDB_OK)
        code = document_begin(&builder, memory, NULL, json == NULL ? 0 : json_size);
    if (code != OMENDB_OK)
        return code;
    if (json != NULL)
        code = document_put_object(&builder, json, json_size);
    if (code == OMENDB_OK)
        code = document_finish(&builder, (const uint8_t *)key, key == NULL ? 0 : key_size, document,
                               size);
    document_end(&builder);
    return code;
}

OMENDB_INTERNAL int document_merge(struct memory *memory, const uint8_t *base, const char *json,
                                   size_t json_size, uint8_t **document, size_t *size)
{
    struct document_builder builder;
    uint32_t key_size;
    const uint8_t *key = document_key(base, &key_size);
    *document = NULL;
    *size = 0;
    int code = document_begin(&builder, memory, base, json == NULL ? 0 : json_size);
    if (code != OMENDB_OK)
        return code;
    document_add_old(&builder, base);
    if (json != NULL)
        code = document_put_object(&builder, json, json_size);
    document_remove_nulls(&builder);
    if (code == OMENDB_OK)
        code = document_finish(&builder, key, key_size, document, size);
    document_end(&builder);
    return code;
}

/* ------------------------------------------------------------------------------------------------
 * writing JSON */

static int document_is_named(const struct document_field *field, const char *const *names,
                             size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strlen(names[i]) == field->name_size &&
            memcmp(names[i], field->name, field->name_size) == 0)
            return 1;
    return 0;
}

static void document_write_texts(struct json_writer *writer, const struct document_value *texts)
{
    const uint8_t *text;
    uint32_t at = 0, size;
    const char *before = "[";
    if (texts->count == 0)
        json_write(writer, "[", 1);
    for (; document_next_text(texts, &at, &text, &size); before = ",") {
        json_write(writer, before, 1);
        json_write_text(writer, text, size);
    }
    json_write(writer, "]", 1);
}

static void document_write_value(struct json_writer *writer, const struct document_value *value)
{
    switch (value->type) {
    case DOCUMENT_FALSE:
        json_write(writer, "false", 5);
        break;
    case DOCUMENT_TRUE:
        json_write(writer, "true", 4);
        break;
    case DOCUMENT_INTEGER:
        json_write_integer(writer, value->integer);
        break;
    case DOCUMENT_REAL:
        json_write_real(writer, value->real);
        break;
    case DOCUMENT_TEXT:
        json_write_text(writer, value->text, value->size);
        break;
    case DOCUMENT_TEXTS:
        document_write_texts(writer, value);
        break;
    default:
        json_write(writer, "null", 4);
    }
}

OMENDB_INTERNAL size_t document_to_json(const uint8_t *document, const char *const *names,
                                        size_t name_count, char *out, size_t capacity)
{
    struct json_writer writer = {out, capacity, 0};
    struct document_field field;
    const uint32_t count = document_field_count(document);
    const char *before = "{";
    for (uint32_t i = 0; i < count; i++) {
        document_field(document, i, &field);
        if (names != NULL && !document_is_named(&field, names, name_count))
            continue;
        json_write(&writer, before, 1);
        before = ",";
        json_write_text(&writer, field.name, field.name_size);
        json_write(&writer, ":", 1);
        document_write_value(&writer, &field.value);
    }
    if (before[0] == '{')
        json_write(&writer, "{", 1);
    json_write(&writer, "}", 1);
    json_write_end(&writer);
    return writer.size;
}

/* Where the value of the last field ends, behind which are zeros. */
static size_t document_content_end(const uint8_t *document)
{
    struct document_value value;
    const uint8_t *entry = document + DOCUMENT_HEAD_BYTES +
                           ((size_t)document_field_count(document) - 1) * DOCUMENT_FIELD_BYTES;
    const size_t name_end =
        (size_t)format_get32(entry + DOCUMENT_ENTRY_OFFSET) + document_name_bytes(entry);
    return name_end + document_read_value(document + name_end,
                                          (enum document_type)entry[DOCUMENT_ENTRY_TYPE], &value);
}

OMENDB_INTERNAL int document_without_key(struct memory *memory, const uint8_t *base,
                                         uint8_t **document, size_t *size)
{
    const uint32_t count = document_field_count(base);
    const size_t heads = DOCUMENT_HEAD_BYTES + (size_t)count * DOCUMENT_FIELD_BYTES;
    uint32_t key_size;
    document_key(base, &key_size);
    *document = NULL;
    *size = 0;
    if (count == 0)
        return OMENDB_OK;
    const size_t end = document_content_end(base) - key_size;
    const size_t padded = (size_t)format_align(end, 8);
    uint8_t *made = memory_zalloc(memory, padded);
    if (made == NULL)
        return OMENDB_NOMEM;
    memcpy(made, base, heads);
    document_put_head(made, (uint32_t)padded, 0, (uint16_t)count);
    memcpy(made + heads, base + heads + key_size, end - heads);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *at =
            made + DOCUMENT_HEAD_BYTES + (size_t)i * DOCUMENT_FIELD_BYTES + DOCUMENT_ENTRY_OFFSET;
        format_put32(at, format_get32(at) - key_size);
    }
    *document = made;
    *size = padded;
    return OMENDB_OK;
}

#undef DOCUMENT_ABOUT
#undef DOCUMENT_FIELD_LEAST
#undef DOCUMENT_TEXTS_BYTES
#undef DOCUMENT_ALLOWED
#undef DOCUMENT_HASH_FACTOR
