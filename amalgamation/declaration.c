/* declaration.c: see declaration.h. A document is compared by going over its fields and the
 * declared ones side by side, as both ascend by name. */
#include "declaration.h"

#include "error.h"
#include "format.h"
#include "json.h"
#include "sort.h"

enum declaration_entry {
    DECLARATION_ENTRY_OFFSET = 0,
    DECLARATION_ENTRY_NAME_BYTES = 4,
    DECLARATION_ENTRY_TYPE = 6,
    DECLARATION_ENTRY_REQUIRED = 7,
    DECLARATION_ENTRY_BYTES = 8
};

OMENDB_INTERNAL const char *declaration_type_name(uint32_t type)
{
    static const char *const names[] = {"any", "i64", "f64", "bool", "text", "texts"};
    return type < sizeof names / sizeof names[0] ? names[type] : "unknown";
}

OMENDB_INTERNAL const char *declaration_given_name(enum document_type type)
{
    static const char *const names[DOCUMENT_TYPES] = {
        "null", "false", "true", "an integer", "a real", "a text", "an array of texts"};
    return names[type];
}

OMENDB_INTERNAL uint32_t declaration_count(const uint8_t *declaration)
{
    return (uint32_t)declaration[4] | (uint32_t)declaration[5] << 8;
}

OMENDB_INTERNAL int declaration_is_strict(const uint8_t *declaration)
{
    return declaration[6] != 0;
}

OMENDB_INTERNAL void declaration_field(const uint8_t *declaration, uint32_t index,
                                       struct declaration_field *field)
{
    const uint8_t *entry =
        declaration + DECLARATION_HEAD_BYTES + (size_t)index * DECLARATION_ENTRY_BYTES;
    field->name = declaration + format_get32(entry + DECLARATION_ENTRY_OFFSET);
    field->name_size = (uint32_t)entry[DECLARATION_ENTRY_NAME_BYTES] |
                       (uint32_t)entry[DECLARATION_ENTRY_NAME_BYTES + 1] << 8;
    field->type = entry[DECLARATION_ENTRY_TYPE];
    field->required = entry[DECLARATION_ENTRY_REQUIRED];
}

/* By bytes; of two that begin alike the shorter first. */
static int declaration_order(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size)
{
    const int order = memcmp(a, b, a_size < b_size ? a_size : b_size);
    return order != 0 ? order : (a_size > b_size) - (a_size < b_size);
}

/* Fields and names follow each other without gaps, so that no two blocks mean the same. */
static const char *declaration_check_fields(const uint8_t *declaration, size_t size, size_t *end)
{
    struct declaration_field field, before = {0};
    const uint32_t count = declaration_count(declaration);
    size_t at = DECLARATION_HEAD_BYTES + (size_t)count * DECLARATION_ENTRY_BYTES;
    if (at > size)
        return "has more fields than bytes";
    for (uint32_t i = 0; i < count; i++, before = field) {
        declaration_field(declaration, i, &field);
        if ((size_t)(field.name - declaration) != at || field.name_size == 0 ||
            field.name_size > OMENDB_FIELD_MAX || field.name_size > size - at)
            return "has a name outside of it";
        if (memchr(field.name, 0, field.name_size) != NULL ||
            json_utf8_bytes(field.name, field.name_size) != field.name_size)
            return "has a name that is not UTF-8 without a NUL";
        if (field.type > OMENDB_FIELD_TEXTS || field.required > 1)
            return "has a field of an unknown type";
        if (i != 0 &&
            declaration_order(before.name, before.name_size, field.name, field.name_size) >= 0)
            return "has names that do not ascend";
        at += field.name_size;
    }
    *end = at;
    return NULL;
}

OMENDB_INTERNAL const char *declaration_check(const uint8_t *declaration, size_t size)
{
    size_t end = 0;
    if (size < DECLARATION_HEAD_BYTES || format_get32(declaration) != size || declaration[6] > 1 ||
        declaration[7] != 0 || declaration_count(declaration) > OMENDB_FIELDS_MAX)
        return "has a head of no use";
    const char *wrong = declaration_check_fields(declaration, size, &end);
    if (wrong != NULL)
        return wrong;
    return format_align(end, 8) == size && format_is_zero(declaration + end, size - end)
               ? NULL
               : "has bytes behind its end";
}

/* ------------------------------------------------------------------ making one */

static int declaration_compare_given(const void *left, const void *right)
{
    const omendb_field *const *a = left, *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

static int declaration_check_given(const omendb_field *const *sorted, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const omendb_field *field = sorted[i];
        if (field->type > OMENDB_FIELD_TEXTS)
            return error_set(OMENDB_INVALID,
                             "field \"%s\" has type %u; there are any (0), i64 (1), f64 (2), bool "
                             "(3), text (4) and texts (5)",
                             field->name, field->type);
        if (field->required > 1)
            return error_set(OMENDB_INVALID, "field \"%s\": required is %u; it is 0 or 1",
                             field->name, field->required);
        if (i != 0 && strcmp(sorted[i - 1]->name, field->name) == 0)
            return error_set(OMENDB_INVALID, "field \"%s\" is declared twice", field->name);
    }
    return OMENDB_OK;
}

static int declaration_write(struct memory *memory, const omendb_field *const *sorted, size_t count,
                             int strict, uint8_t **declaration, size_t *size)
{
    size_t at = DECLARATION_HEAD_BYTES + count * DECLARATION_ENTRY_BYTES, end = at;
    for (size_t i = 0; i < count; i++)
        end += strlen(sorted[i]->name);
    *size = (size_t)format_align(end, 8);
    *declaration = memory_zalloc(memory, *size);
    if (*declaration == NULL)
        return OMENDB_NOMEM;
    format_put32(*declaration, (uint32_t)*size);
    (*declaration)[4] = (uint8_t)(count & 0xff);
    (*declaration)[5] = (uint8_t)(count >> 8);
    (*declaration)[6] = strict != 0;
    for (size_t i = 0; i < count; i++) {
        uint8_t *entry = *declaration + DECLARATION_HEAD_BYTES + i * DECLARATION_ENTRY_BYTES;
        const size_t bytes = strlen(sorted[i]->name);
        format_put32(entry + DECLARATION_ENTRY_OFFSET, (uint32_t)at);
        entry[DECLARATION_ENTRY_NAME_BYTES] = (uint8_t)(bytes & 0xff);
        entry[DECLARATION_ENTRY_TYPE] = (uint8_t)sorted[i]->type;
        entry[DECLARATION_ENTRY_REQUIRED] = (uint8_t)sorted[i]->required;
        memcpy(*declaration + at, sorted[i]->name, bytes);
        at += bytes;
    }
    return OMENDB_OK;
}
_Static_assert(OMENDB_FIELD_MAX < 256, "one byte of a name's length is used");

OMENDB_INTERNAL int declaration_create(struct memory *memory, const uint8_t *fields, size_t stride,
                                       size_t count, int strict, uint8_t **declaration,
                                       size_t *size)
{
    const omendb_field **sorted = memory_array(memory, count, sizeof *sorted);
    *declaration = NULL;
    if (sorted == NULL)
        return OMENDB_NOMEM;
    for (size_t i = 0; i < count; i++)
        sorted[i] = (const omendb_field *)(const void *)(fields + i * stride);
    sort_array((void *)sorted, count, sizeof *sorted, declaration_compare_given);
    int code = declaration_check_given(sorted, count);
    if (code == OMENDB_OK)
        code = declaration_write(memory, sorted, count, strict, declaration, size);
    memory_free(memory, (void *)sorted, count * sizeof *sorted);
    return code;
}

/* ------------------------------------------------------------------ comparing */

static int declaration_allows(uint32_t type, enum document_type given)
{
    switch (type) {
    case OMENDB_FIELD_I64:
        return given == DOCUMENT_INTEGER;
    case OMENDB_FIELD_F64:
        return given == DOCUMENT_INTEGER || given == DOCUMENT_REAL;
    case OMENDB_FIELD_BOOL:
        return given == DOCUMENT_FALSE || given == DOCUMENT_TRUE;
    case OMENDB_FIELD_TEXT:
        return given == DOCUMENT_TEXT;
    case OMENDB_FIELD_TEXTS:
        return given == DOCUMENT_TEXTS;
    default:
        return 1;
    }
}

/* Of one declared field; null is as good as missing. */
static enum declaration_fault declaration_compare_field(const struct declaration_field *field,
                                                        enum document_type given)
{
    if (given == DOCUMENT_NULL)
        return field->required ? DECLARATION_MISSING : DECLARATION_KEPT;
    return declaration_allows(field->type, given) ? DECLARATION_KEPT : DECLARATION_TYPE;
}

OMENDB_INTERNAL enum declaration_fault declaration_compare(const uint8_t *declaration,
                                                           const uint8_t *document,
                                                           struct declaration_breach *breach)
{
    const uint32_t declared = declaration_count(declaration),
                   given = document_field_count(document);
    enum declaration_fault fault = DECLARATION_KEPT;
    for (uint32_t d = 0, g = 0; (d < declared || g < given) && fault == DECLARATION_KEPT;) {
        struct document_field own = {0};
        int order = d == declared ? 1 : -1;
        if (d < declared)
            declaration_field(declaration, d, &breach->field);
        if (g < given)
            document_field(document, g, &own);
        if (d < declared && g < given)
            order = declaration_order(breach->field.name, breach->field.name_size, own.name,
                                      own.name_size);
        breach->given = order < 0 ? DOCUMENT_NULL : own.value.type;
        if (order <= 0) {
            fault = declaration_compare_field(&breach->field, breach->given);
        } else if (declaration_is_strict(declaration)) {
            breach->field = (struct declaration_field){own.name, own.name_size, 0, 0};
            fault = DECLARATION_OTHER;
        }
        d += order <= 0;
        g += order >= 0;
    }
    return fault;
}
