/* api_fields.c: the public calls about declared fields. */
#include "api.h"
#include "declaration.h"

#include <string.h>

static int api_check_fields_given(size_t count, const omendb_field *fields)
{
    int code = OMENDB_OK;
    if (count > OMENDB_FIELDS_MAX)
        return error_set(OMENDB_TOOBIG, "%zu fields; at most %d are declared", count,
                         OMENDB_FIELDS_MAX);
    if (count != 0 && fields == NULL)
        return api_null("fields");
    const size_t stride = count == 0 ? 0 : fields->struct_size;
    for (size_t i = 0; i < count && code == OMENDB_OK; i++) {
        const omendb_field *field = (const void *)((const uint8_t *)fields + i * stride);
        code = api_struct_read(field, sizeof *field, "field");
        if (code == OMENDB_OK && (field->struct_size != stride || stride % sizeof(uint64_t) != 0))
            code = error_set(OMENDB_MISUSE,
                             "field.struct_size is %zu; all of an array have the same, a multiple "
                             "of 8",
                             field->struct_size);
        if (code == OMENDB_OK)
            code = api_name(field->name, "a field");
        if (code == OMENDB_OK &&
            (strcmp(field->name, "_id") == 0 || strcmp(field->name, "_key") == 0))
            code = error_set(OMENDB_INVALID,
                             "a field cannot be named \"%s\": in filters that is the %s of the "
                             "record",
                             field->name, field->name + 1);
    }
    return code;
}

OMENDB_API int omendb_collection_declare(omendb_collection *collection, size_t count,
                                         const omendb_field *fields, int strict)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    struct declared *made = NULL;
    int code = api_writing(collection, NULL);
    if (code == OMENDB_OK)
        code = api_check_fields_given(count, fields);
    if (code == OMENDB_OK && strict != 0 && strict != 1)
        code = error_set(OMENDB_INVALID, "strict is %d; it is 0 or 1", strict);
    if (code != OMENDB_OK)
        return code;
    omendb *db = collection->db;
    code = declaration_create(&db->memory, (const uint8_t *)fields,
                              count == 0 ? 0 : fields->struct_size, count, strict, &bytes, &size);
    if (code == OMENDB_OK)
        code = fields_make(db, bytes, size, &made);
    if (code == OMENDB_OK) {
        struct change change = {.kind = CHANGE_DECLARE,
                                .count = (uint32_t)size,
                                .collection = collection->collection,
                                .setting = bytes,
                                .declared = &made};
        code = commit_changes(db, &change, 1, UINT64_MAX);
    }
    fields_discard(db, made);
    memory_free(&db->memory, bytes, size);
    return code;
}

OMENDB_API int omendb_collection_declaration(omendb_collection *collection, size_t *count,
                                             int *strict)
{
    size_t size;
    int code = api_collection(collection);
    if (code != OMENDB_OK)
        return code;
    const uint8_t *declaration = fields_get(collection->collection, &size);
    if (count != NULL)
        *count = declaration == NULL ? 0 : declaration_count(declaration);
    if (strict != NULL)
        *strict = declaration != NULL && declaration_is_strict(declaration);
    return OMENDB_OK;
}

OMENDB_API int omendb_collection_field(omendb_collection *collection, size_t index,
                                       omendb_field *field, char *name, size_t capacity)
{
    struct declaration_field found;
    size_t size;
    int code = api_collection(collection);
    if (code == OMENDB_OK && (field == NULL || name == NULL))
        code = api_null(field == NULL ? "field" : "name");
    if (code == OMENDB_OK)
        code = api_struct(field->struct_size, sizeof *field, "field");
    if (code != OMENDB_OK)
        return code;
    const uint8_t *declaration = fields_get(collection->collection, &size);
    if (declaration == NULL || index >= declaration_count(declaration))
        return OMENDB_DONE;
    declaration_field(declaration, (uint32_t)index, &found);
    if (found.name_size >= capacity)
        return error_set(OMENDB_INVALID, "capacity is %zu; the name needs %u bytes", capacity,
                         found.name_size + 1);
    memcpy(name, found.name, found.name_size);
    name[found.name_size] = 0;
    field->name = name;
    field->type = found.type;
    field->required = found.required;
    return OMENDB_OK;
}
