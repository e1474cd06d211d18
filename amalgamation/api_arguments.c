/* api_arguments.c: the checks that the public calls share. */
#include "api.h"
#include "json.h"

#include <string.h>

OMENDB_INTERNAL int api_null(const char *what)
{
    return error_set(OMENDB_MISUSE, "%s is NULL", what);
}

#define API_STRUCT_MAX 4096

OMENDB_INTERNAL int api_struct(size_t size, size_t expected, const char *what)
{
    if (size >= expected && size <= API_STRUCT_MAX)
        return OMENDB_OK;
    if (size > API_STRUCT_MAX)
        return error_set(OMENDB_MISUSE,
                         "%s.struct_size is %zu: it was not set; see STRUCTS in omendb.h", what,
                         size);
    return error_set(OMENDB_MISUSE,
                     "%s.struct_size is %zu, at least %zu is needed; set it as omendb.h says under "
                     "STRUCTS",
                     what, size, expected);
}

OMENDB_INTERNAL int api_struct_read(const void *given, size_t expected, const char *what)
{
    size_t size;
    memcpy(&size, given, sizeof size);
    int code = api_struct(size, expected, what);
    for (size_t at = expected; at < size && code == OMENDB_OK; at++) {
        if (((const unsigned char *)given)[at] != 0)
            return error_set(OMENDB_INVALID,
                             "%s has a field at byte %zu that version " OMENDB_VERSION
                             " does not know, and it is set",
                             what, at);
    }
    return code;
}

OMENDB_INTERNAL int api_database(const omendb *db)
{
    if (db == NULL)
        return api_null("db");
    if (!handle_is(db, DATABASE_MAGIC))
        return error_set(OMENDB_MISUSE, "db is not an open database");
    if (db->process != platform_process())
        return error_set(
            OMENDB_MISUSE,
            "the database was opened by the parent of this process; open it anew in the child");
    return atomic_load(&db->released) ? error_set(OMENDB_MISUSE, "the database was released")
                                      : OMENDB_OK;
}

OMENDB_INTERNAL int api_collection(const omendb_collection *handle)
{
    if (handle == NULL)
        return api_null("collection");
    if (!handle_is(handle, COLLECTION_MAGIC))
        return error_set(OMENDB_MISUSE, "collection is not an open collection");
    int code = api_database(handle->db);
    if (code == OMENDB_OK && atomic_load(&handle->db->half_refreshed))
        return error_set(OMENDB_IOERR, "the last omendb_refresh failed half-way; call it again");
    if (code == OMENDB_OK && atomic_load(&handle->collection->dropped))
        return error_set(OMENDB_DROPPED, "collection \"%s\" was dropped", handle->collection->name);
    return code;
}

OMENDB_INTERNAL int api_txn(const omendb_collection *handle, const omendb_txn *txn)
{
    if (txn == NULL)
        return OMENDB_OK;
    if (!handle_is(txn, TXN_MAGIC) || txn->db != handle->db)
        return error_set(OMENDB_MISUSE, "txn is not an open transaction of this database");
    return OMENDB_OK;
}

OMENDB_INTERNAL int api_filter(const omendb *db, const omendb_filter *filter)
{
    if (filter == NULL)
        return OMENDB_OK;
    if (!handle_is(filter, FILTER_MAGIC) || filter->db != db)
        return error_set(OMENDB_MISUSE, "filter is not an open filter of this database");
    return OMENDB_OK;
}

OMENDB_INTERNAL int api_reading(omendb_collection *collection, const omendb_txn *txn)
{
    int code = api_collection(collection);
    return code == OMENDB_OK ? api_txn(collection, txn) : code;
}

OMENDB_INTERNAL int api_writing(const omendb_collection *handle, const omendb_txn *txn)
{
    int code = api_collection(handle);
    if (code == OMENDB_OK)
        code = api_txn(handle, txn);
    if (code == OMENDB_OK && handle->db->read_only)
        return error_set(OMENDB_READONLY, "the database was opened read-only");
    if (code == OMENDB_OK && txn != NULL && txn->mode == OMENDB_READ_ONLY)
        return error_set(OMENDB_READONLY, "the transaction was begun read-only");
    return code;
}

OMENDB_INTERNAL int api_name(const char *name, const char *whose)
{
    if (name == NULL)
        return api_null("name");
    size_t length = strlen(name);
    if (length == 0 || length > 255)
        return error_set(OMENDB_INVALID, "the name of %s has %zu bytes; 1 to 255 are allowed",
                         whose, length);
    const size_t legal = manifest_name_legal_bytes(name, length);
    if (legal < length)
        return error_set(OMENDB_INVALID,
                         "the name of %s has a control character or bad UTF-8 at byte %zu", whose,
                         legal);
    return OMENDB_OK;
}

OMENDB_INTERNAL int api_field(const char *name, const char *what)
{
    const size_t length = strlen(name);
    if (length == 0 || length > OMENDB_FIELD_MAX)
        return error_set(OMENDB_INVALID, "%s has %zu bytes; the name of a field has 1 to %d", what,
                         length, OMENDB_FIELD_MAX);
    const size_t valid = json_utf8_bytes((const uint8_t *)name, length);
    return valid == length ? OMENDB_OK
                           : error_set(OMENDB_INVALID, "%s has bad UTF-8 at byte %zu", what, valid);
}

#undef API_STRUCT_MAX
