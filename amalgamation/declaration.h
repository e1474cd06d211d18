/* declaration.h: the fields that metadata is declared to have, as one block of bytes that is
 * logged, kept in the manifest and read in place. Whoever gets one from outside of
 * declaration_create calls declaration_check first; all others rely on it.
 *
 * Little-endian, unaligned:
 *    0  4  bytes of all of it, a multiple of 8
 *    4  2  fields
 *    6  1  1: strict, no other fields are allowed
 *    7  1  zero
 *    8     fields, ascending by name as those of documents are, each 8:
 *             u32 offset of the name, u16 bytes of the name, u8 type (omendb_field_type), u8 1:
 * required the names in the same order, without gaps, zeros to a multiple of 8 Without fields, and
 * not strict, it declares nothing. Equal declarations have equal bytes. */
#ifndef OMENDB_DECLARATION_H
#define OMENDB_DECLARATION_H

#include "internal.h"
#include "document.h"
#include "memory.h"

#define DECLARATION_HEAD_BYTES 8

struct declaration_field {
    const uint8_t *name;
    uint32_t name_size;
    uint32_t type;
    uint32_t required;
};

OMENDB_INTERNAL uint32_t declaration_count(const uint8_t *declaration);
OMENDB_INTERNAL int declaration_is_strict(const uint8_t *declaration);
OMENDB_INTERNAL void declaration_field(const uint8_t *declaration, uint32_t index,
                                       struct declaration_field *field);
/* Whether `size` bytes are a declaration, in every detail. NULL, or what is wrong. */
OMENDB_INTERNAL const char *declaration_check(const uint8_t *declaration, size_t size);
/* Of `count` fields of the caller, at each `stride` bytes, whose names were checked. memory_free of
 * *size bytes is due. OMENDB_INVALID: a type that there is not, a name twice; OMENDB_NOMEM. */
OMENDB_INTERNAL int declaration_create(struct memory *memory, const uint8_t *fields, size_t stride,
                                       size_t count, int strict, uint8_t **declaration,
                                       size_t *size);

/* What a document does that is not allowed. */
enum declaration_fault {
    DECLARATION_KEPT,
    DECLARATION_MISSING,
    DECLARATION_TYPE,
    DECLARATION_OTHER
};
struct declaration_breach {
    struct declaration_field field; /* OTHER: only its name is set */
    enum document_type given;       /* TYPE, OTHER */
};
/* The first field, in the order of names, that breaks the declaration. document: NULL: none. */
OMENDB_INTERNAL enum declaration_fault declaration_compare(const uint8_t *declaration,
                                                           const uint8_t *document,
                                                           struct declaration_breach *breach);

/* "i64"; "an integer", of what was given. */
OMENDB_INTERNAL const char *declaration_type_name(uint32_t type);
OMENDB_INTERNAL const char *declaration_given_name(enum document_type type);

#endif
