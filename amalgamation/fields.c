/* fields.c: the declared fields of collections, and what is written compared with them.
 *
 * A declaration is immutable. Those before it stay until the collection goes, as a call may be
 * comparing with one; one that comes back is the same object, so that to declare the same things in
 * turn takes no memory, and a pointer tells whether what was compared must be compared again.
 *
 * What is written is compared when it is given, before any lock is taken, and when it is committed
 * if the declaration is another one by then. A log that is replayed, and the outcome of a prepared
 * transaction, are not: what was accepted stays accepted. */
#include "database.h"

#include "declaration.h"

#include <stdio.h>

/* One that a collection has, or had since it was opened. */
struct declared {
    struct declared *older;
    size_t size;
    uint8_t bytes[];
};

OMENDB_INTERNAL int fields_make(omendb *db, const uint8_t *bytes, size_t size,
                                struct declared **made)
{
    *made = memory_alloc(&db->memory, memory_add(sizeof **made, size));
    if (*made == NULL)
        return OMENDB_NOMEM;
    (*made)->older = NULL;
    (*made)->size = size;
    memcpy((*made)->bytes, bytes, size);
    return OMENDB_OK;
}

OMENDB_INTERNAL void fields_discard(omendb *db, struct declared *made)
{
    if (made != NULL)
        memory_free(&db->memory, made, sizeof *made + made->size);
}

OMENDB_INTERNAL void fields_destroy(struct collection *collection)
{
    while (collection->declarations != NULL) {
        struct declared *older = collection->declarations->older;
        fields_discard(collection->db, collection->declarations);
        collection->declarations = older;
    }
}

static int fields_are_none(const struct declared *declared)
{
    return declaration_count(declared->bytes) == 0 && !declaration_is_strict(declared->bytes);
}

OMENDB_INTERNAL void fields_set(struct collection *collection, struct declared *made)
{
    struct declared *same = collection->declarations;
    if (made == NULL || fields_are_none(made)) {
        fields_discard(collection->db, made);
        atomic_store_explicit(&collection->declared, NULL, memory_order_release);
        return;
    }
    while (same != NULL &&
           (same->size != made->size || memcmp(same->bytes, made->bytes, made->size) != 0))
        same = same->older;
    if (same != NULL) {
        fields_discard(collection->db, made);
    } else {
        same = made;
        made->older = collection->declarations;
        collection->declarations = made;
    }
    atomic_store_explicit(&collection->declared, same, memory_order_release);
}

OMENDB_INTERNAL const uint8_t *fields_get(const struct collection *collection, size_t *size)
{
    const struct declared *declared =
        atomic_load_explicit(&collection->declared, memory_order_acquire);
    *size = declared == NULL ? 0 : declared->size;
    return declared == NULL ? NULL : declared->bytes;
}

/* ------------------------------------------------------------------ what is written */

static int fields_refuse(const struct change *change, uint32_t index, enum declaration_fault fault,
                         const struct declaration_breach *breach)
{
    const char *collection = change->collection->name, *name = (const char *)breach->field.name;
    const int size = (int)breach->field.name_size;
    char record[48] = "the record";
    if (change->ids[index] != OMENDB_ID_AUTO)
        snprintf(record, sizeof record, "record %llu", (unsigned long long)change->ids[index]);
    else if (change->count > 1)
        snprintf(record, sizeof record, "row %u", index);
    if (fault == DECLARATION_MISSING)
        return error_set(
            OMENDB_INVALID,
            "%s lacks the field \"%.*s\", which collection \"%s\" declares as required", record,
            size, name, collection);
    if (fault == DECLARATION_OTHER)
        return error_set(
            OMENDB_INVALID,
            "%s has a field \"%.*s\"; collection \"%s\" is strict and does not declare "
            "it",
            record, size, name, collection);
    return error_set(OMENDB_INVALID,
                     "field \"%.*s\" of %s is %s; collection \"%s\" declares it as %s", size, name,
                     record, declaration_given_name(breach->given), collection,
                     declaration_type_name(breach->field.type));
}

OMENDB_INTERNAL int fields_check_change(struct change *change)
{
    const struct declared *declared =
        atomic_load_explicit(&change->collection->declared, memory_order_acquire);
    const uint8_t *at = change->documents;
    if (declared == NULL || declared == change->kept ||
        (change->kind != CHANGE_ADD && change->kind != CHANGE_PUT && change->kind != CHANGE_UPDATE))
        return OMENDB_OK;
    for (uint32_t i = 0; i < change->count; i++) {
        struct declaration_breach breach = {.given = DOCUMENT_NULL};
        const uint8_t *document = change_next_document(change, i, &at);
        const enum declaration_fault fault =
            declaration_compare(declared->bytes, document, &breach);
        if (fault != DECLARATION_KEPT)
            return fields_refuse(change, i, fault, &breach);
    }
    change->kept = declared;
    return OMENDB_OK;
}
