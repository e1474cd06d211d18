/* api_documents.c: the public calls about keys and metadata.
 *
 * What a call writes here follows from what it read: without a transaction of the caller it is one
 * of its own, which begins anew where another commit came between. */
#include "api.h"
#include "records.h"
#include "rows.h"

#include <string.h>

#define API_TRIES       100    /* of a call whose record others change, too */
#define API_PATIENCE_US 100000 /* that a new one waits for those that try again */

/* *size: of the key. */
static int api_key(const char *key, uint32_t *size)
{
    if (key == NULL)
        return api_null("key");
    size_t length = strlen(key);
    if (length == 0 || length > OMENDB_KEY_MAX)
        return error_set(OMENDB_INVALID, "the key has %zu bytes; 1 to %d are allowed", length,
                         OMENDB_KEY_MAX);
    *size = (uint32_t)length;
    return OMENDB_OK;
}

static int api_refuse_missing_key(const struct collection *collection, const char *key)
{
    return error_set(OMENDB_NOTFOUND, "key \"%.300s\" is not in collection \"%s\"", key,
                     collection->name);
}

OMENDB_INTERNAL int api_find_key(struct collection *collection, const struct version *version,
                                 uint64_t commit, const omendb_txn *txn, const char *key,
                                 uint64_t *id)
{
    uint32_t size = 0;
    int code = api_key(key, &size);
    if (code == OMENDB_OK)
        code = txn_find_key(txn, version, collection, commit, (const uint8_t *)key, size, id);
    if (code == OMENDB_OK && *id == OMENDB_ID_AUTO)
        return api_refuse_missing_key(collection, key);
    return code;
}

OMENDB_API int omendb_find(omendb_collection *collection, omendb_txn *txn, const char *key,
                           uint64_t *id)
{
    uint64_t commit, found;
    int code = api_reading(collection, txn);
    if (code != OMENDB_OK)
        return code;
    struct version *version = api_version(collection, txn, &commit);
    code = api_find_key(collection->collection, version, commit, txn, key, &found);
    if (code == OMENDB_OK && id != NULL)
        *id = found;
    version_release(version);
    return code;
}

/* ------------------------------------------------------------------ reading */

/* What is to be told of a document: the bytes without the NUL, of which `capacity` are written. */
struct api_text {
    const char *const *fields;
    size_t field_count;
    char *out;
    size_t capacity;
};

static size_t api_tell_key(const struct api_text *text, const uint8_t *document)
{
    uint32_t size;
    const uint8_t *key = document_key(document, &size);
    if (size < text->capacity) {
        if (key != NULL)
            memcpy(text->out, key, size);
        text->out[size] = 0;
    }
    return size;
}

static size_t api_tell_metadata(const struct api_text *text, const uint8_t *document)
{
    const size_t size = document_to_json(document, text->fields, text->field_count, NULL, 0);
    if (size < text->capacity)
        document_to_json(document, text->fields, text->field_count, text->out, text->capacity);
    return size;
}

static int api_tell_document(const uint8_t *document,
                             size_t (*tell)(const struct api_text *text, const uint8_t *document),
                             const struct api_text *text, size_t *size)
{
    const size_t bytes = tell(text, document);
    if (size != NULL)
        *size = bytes;
    return bytes < text->capacity
               ? OMENDB_OK
               : error_set(OMENDB_TOOBIG, "the text has %zu bytes and a NUL; capacity is %zu",
                           bytes, text->capacity);
}

static int api_tell(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                    size_t (*tell)(const struct api_text *text, const uint8_t *document),
                    const struct api_text *text, size_t *size)
{
    const uint8_t *document;
    uint64_t commit;
    int code = api_reading(collection, txn);
    if (code != OMENDB_OK)
        return code;
    if (text->out == NULL && text->capacity != 0)
        return api_null("the place for the text");
    struct version *version = api_version(collection, txn, &commit);
    code = api_find_record(collection->collection, version, commit, txn, id, NULL, &document);
    if (code == OMENDB_OK)
        code = api_tell_document(document, tell, text, size);
    version_release(version);
    return code;
}

OMENDB_API int omendb_get_key(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                              char *key, size_t capacity, size_t *size)
{
    const struct api_text text = {NULL, 0, key, capacity};
    return api_tell(collection, txn, id, api_tell_key, &text, size);
}

static int api_check_fields(const struct api_text *text)
{
    for (size_t i = 0; text->fields != NULL && i < text->field_count; i++) {
        if (text->fields[i] == NULL)
            return api_null("a name in fields");
    }
    return OMENDB_OK;
}

OMENDB_API int omendb_get_metadata(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                                   const char *const *fields, size_t field_count, char *json,
                                   size_t capacity, size_t *size)
{
    const struct api_text text = {fields, field_count, json, capacity};
    int code = api_check_fields(&text);
    if (code != OMENDB_OK)
        return code;
    return api_tell(collection, txn, id, api_tell_metadata, &text, size);
}

static int api_tell_rows(const omendb_rows *rows,
                         size_t (*tell)(const struct api_text *text, const uint8_t *document),
                         const struct api_text *text, size_t *size)
{
    const uint8_t *document;
    if (!rows_is_valid(rows))
        return error_set(OMENDB_MISUSE, "rows is not an open cursor");
    int code = api_database(rows_database(rows));
    if (code == OMENDB_OK && text->out == NULL && text->capacity != 0)
        code = api_null("the place for the text");
    if (code == OMENDB_OK)
        code = rows_document(rows, &document);
    return code == OMENDB_OK ? api_tell_document(document, tell, text, size) : code;
}

OMENDB_API int omendb_rows_key(omendb_rows *rows, char *key, size_t capacity, size_t *size)
{
    const struct api_text text = {NULL, 0, key, capacity};
    return api_tell_rows(rows, api_tell_key, &text, size);
}

OMENDB_API int omendb_rows_metadata(omendb_rows *rows, const char *const *fields,
                                    size_t field_count, char *json, size_t capacity, size_t *size)
{
    const struct api_text text = {fields, field_count, json, capacity};
    int code = api_check_fields(&text);
    return code == OMENDB_OK ? api_tell_rows(rows, api_tell_metadata, &text, size) : code;
}

/* ------------------------------------------------------------------ what follows from it */

struct api_edit {
    uint64_t id;
    const char *text; /* the key, or the patch */
    int (*make)(omendb_collection *collection, omendb_txn *txn, const struct api_edit *edit);
    int alone; /* 1: the transaction is one of the call, and has no other change */
};

static int api_edit_once(omendb_collection *collection, const struct api_edit *edit)
{
    omendb_txn *txn;
    int code = omendb_txn_begin(collection->db, OMENDB_READ_WRITE, &txn);
    if (code != OMENDB_OK)
        return code;
    code = edit->make(collection, txn, edit);
    if (code == OMENDB_OK)
        return omendb_txn_commit(txn);
    omendb_txn_rollback(txn);
    return code;
}

/* A new edit waits for those that lost against others: who comes back from a commit would begin the
 * next one before a loser has even been woken, each time anew. */
static void api_let_losers_pass(omendb *db)
{
    int waiting = 1;
    if (atomic_load_explicit(&db->edit_losers, memory_order_relaxed) == 0)
        return;
    platform_mutex_lock(&db->edit_mutex);
    while (waiting && atomic_load_explicit(&db->edit_losers, memory_order_relaxed) != 0)
        waiting =
            platform_condition_wait_for(&db->edit_condition, &db->edit_mutex, API_PATIENCE_US);
    platform_mutex_unlock(&db->edit_mutex);
}

/* Among the losers one wins each round. */
static int api_edit_again(omendb_collection *collection, const struct api_edit *edit)
{
    omendb *db = collection->db;
    int code = OMENDB_CONFLICT;
    platform_mutex_lock(&db->edit_mutex);
    atomic_fetch_add_explicit(&db->edit_losers, 1, memory_order_relaxed);
    platform_mutex_unlock(&db->edit_mutex);
    for (int tries = 1; tries < API_TRIES && code == OMENDB_CONFLICT; tries++)
        code = api_edit_once(collection, edit);
    platform_mutex_lock(&db->edit_mutex);
    if (atomic_fetch_sub_explicit(&db->edit_losers, 1, memory_order_relaxed) == 1)
        platform_condition_broadcast(&db->edit_condition);
    platform_mutex_unlock(&db->edit_mutex);
    return code;
}

static int api_edit(omendb_collection *collection, omendb_txn *txn, const struct api_edit *edit)
{
    int code = api_writing(collection, txn);
    if (code != OMENDB_OK || edit->text == NULL)
        return code != OMENDB_OK ? code : api_null("key or metadata");
    if (txn != NULL)
        return edit->make(collection, txn, edit);
    api_let_losers_pass(collection->db);
    code = api_edit_once(collection, edit);
    return code == OMENDB_CONFLICT ? api_edit_again(collection, edit) : code;
}

static int api_make_deletion(omendb_collection *collection, omendb_txn *txn,
                             const struct api_edit *edit)
{
    uint64_t id;
    int code = omendb_find(collection, txn, edit->text, &id);
    return code == OMENDB_OK ? omendb_delete(collection, txn, id) : code;
}

OMENDB_API int omendb_delete_key(omendb_collection *collection, omendb_txn *txn, const char *key)
{
    const struct api_edit edit = {OMENDB_ID_AUTO, key, api_make_deletion, txn == NULL};
    return api_edit(collection, txn, &edit);
}

/* Another document for the record; its vector is not read where the call is a transaction of its
 * own. */
static int api_put_document(omendb_collection *collection, omendb_txn *txn,
                            const struct api_edit *edit, const uint8_t *document)
{
    const struct records_given given = {.count = 1, .ids = &edit->id, .documents = &document};
    struct records records;
    int code = records_prepare(collection->collection, CHANGE_UPDATE, &given, &records);
    if (code == OMENDB_OK)
        code = edit->alone ? commit_changes(collection->db, &records.change, 1, txn->snapshot)
                           : records_commit(&records, txn);
    records_destroy(&records);
    return code;
}

static int api_is_same_document(const uint8_t *a, const uint8_t *b)
{
    const uint32_t size = document_size(a);
    return size == document_size(b) && (size == 0 || memcmp(a, b, size) == 0);
}

static int api_try_update(omendb_collection *collection, omendb_txn *txn,
                          const struct api_edit *edit)
{
    struct memory *memory = &collection->db->memory;
    const uint8_t *document;
    uint8_t *merged = NULL;
    size_t size = 0;
    uint64_t commit;
    struct version *version = api_version(collection, txn, &commit);
    int code =
        api_find_record(collection->collection, version, commit, txn, edit->id, NULL, &document);
    if (code == OMENDB_OK)
        code = document_merge(memory, document, edit->text, strlen(edit->text), &merged, &size);
    if (code == OMENDB_OK)
        code = records_check_names(document, merged);
    if (code == OMENDB_OK && !api_is_same_document(document, merged))
        code = api_put_document(collection, txn, edit, merged);
    memory_free(memory, merged, size);
    version_release(version);
    return code;
}

static int api_make_update(omendb_collection *collection, omendb_txn *txn,
                           const struct api_edit *edit)
{
    struct work_wait wait = {0};
    int code = api_try_update(collection, txn, edit);
    while (code == OMENDB_NOMEM && work_relieve(collection->db, &wait))
        code = api_try_update(collection, txn, edit);
    return code;
}

OMENDB_API int omendb_update(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                             const char *metadata)
{
    const struct api_edit edit = {id, metadata, api_make_update, txn == NULL};
    return api_edit(collection, txn, &edit);
}

#undef API_TRIES
#undef API_PATIENCE_US
