/* api_limits.c: the public calls about limits. */
#include "api.h"
#include "format.h"

OMENDB_API int omendb_collection_set_limits(omendb_collection *collection,
                                            const omendb_limits *limits)
{
    static const omendb_limits none = OMENDB_LIMITS_INIT;
    uint8_t bytes[FORMAT_LIMITS_BYTES];
    int code = api_writing(collection, NULL);
    if (code == OMENDB_OK && limits != NULL)
        code = api_struct_read(limits, sizeof *limits, "limits");
    if (code != OMENDB_OK)
        return code;
    manifest_encode_limits(limits == NULL ? &none : limits, bytes);
    struct change change = {.kind = CHANGE_LIMITS,
                            .count = FORMAT_LIMITS_BYTES,
                            .collection = collection->collection,
                            .setting = bytes};
    return commit_changes(collection->db, &change, 1, UINT64_MAX);
}

OMENDB_API int omendb_collection_get_limits(omendb_collection *collection, omendb_limits *limits)
{
    int code = api_collection(collection);
    if (code != OMENDB_OK)
        return code;
    if (limits == NULL)
        return api_null("limits");
    code = api_struct(limits->struct_size, sizeof *limits, "limits");
    if (code != OMENDB_OK)
        return code;
    platform_mutex_lock(&collection->db->commit_mutex);
    quota_get(collection->collection, limits);
    platform_mutex_unlock(&collection->db->commit_mutex);
    return OMENDB_OK;
}
