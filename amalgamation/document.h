/* document.h: what a record carries beside id and vector: its key and the fields of its metadata,
 * as one block of bytes that is stored, logged and read in place. Whoever gets one from outside of
 * the process's own encoder calls document_check first; all others rely on it.
 *
 * Little-endian, unaligned:
 *    0  4  bytes of all of it, a multiple of 8
 *    4  2  bytes of the key, 0: none
 *    6  2  fields
 *    8     fields, ascending by name (bytes; of two that begin alike the shorter first), each 12:
 *             u32 hash of the name, u32 offset of the name, u16 bytes of the name, u8 type, u8 zero
 *          the key
 *          of each field in the same order, without gaps: the name, then the value
 *             null, false, true: nothing
 *             integer:           i64
 *             real:              f64, finite
 *             text:              u32 bytes, UTF-8 (a NUL may be among it)
 *             texts:             u32 bytes of what follows, u32 count, then each as text
 *          zeros to a multiple of 8
 * Key, names and texts are UTF-8; the key has no NUL. There is a key or a field: of nothing there
 * is no document. So equal contents have equal bytes.
 *
 * NUMBERS of JSON that are written without point and exponent and fit are integers, all others are
 * the nearest real: 1 and -0 are integers, 1.0, -0.0, 1e2 and 9223372036854775808 are reals.
 *
 * ORDER of values of different types, which comparisons and sorting follow: null, false, true,
 * numbers (integers and reals by value, exactly), texts (by bytes); arrays of texts come last and
 * are compared by what they hold.
 *
 * Rejected: a varint encoding (smaller by a tenth, but finding a field is then a walk over all
 * before it); numbers for the names of a collection (a catalog that must be durable before the
 * first record that uses it, for some 10 bytes a field that merges could take out later). */
#ifndef OMENDB_DOCUMENT_H
#define OMENDB_DOCUMENT_H

#include "internal.h"
#include "memory.h"

#include <string.h>

#define DOCUMENT_HEAD_BYTES  8
#define DOCUMENT_FIELD_BYTES 12
#define DOCUMENT_KEY_MAX     1024
#define DOCUMENT_NAME_MAX    255
#define DOCUMENT_FIELDS_MAX  1024
#define DOCUMENT_BYTES_MAX   (UINT32_C(1) << 20)

enum document_type {
    DOCUMENT_NULL = 0,
    DOCUMENT_FALSE = 1,
    DOCUMENT_TRUE = 2,
    DOCUMENT_INTEGER = 3,
    DOCUMENT_REAL = 4,
    DOCUMENT_TEXT = 5,
    DOCUMENT_TEXTS = 6,
    DOCUMENT_TYPES = 7
};

/* Borrowed from the document. */
struct document_value {
    enum document_type type;
    int64_t integer;
    double real;
    const uint8_t *text; /* TEXT: its bytes; TEXTS: `count` of u32 bytes and text */
    uint32_t size;       /* of `text` */
    uint32_t count;
};

struct document_field {
    const uint8_t *name;
    uint32_t name_size;
    struct document_value value;
};

/* NULL for a record without key and metadata: such a one has no bytes at all. */
static inline uint32_t document_size(const uint8_t *document)
{
    uint32_t size = 0;
    if (document != NULL)
        memcpy(&size, document, sizeof size);
    return size;
}

static inline uint32_t document_field_count(const uint8_t *document)
{
    uint16_t count = 0;
    if (document != NULL)
        memcpy(&count, document + 6, sizeof count);
    return count;
}

/* The key, *size bytes; NULL: none. */
static inline const uint8_t *document_key(const uint8_t *document, uint32_t *size)
{
    uint16_t bytes = 0;
    if (document != NULL)
        memcpy(&bytes, document + 4, sizeof bytes);
    *size = bytes;
    return bytes == 0 ? NULL
                      : document + DOCUMENT_HEAD_BYTES +
                            (size_t)document_field_count(document) * DOCUMENT_FIELD_BYTES;
}

/* Of a name; part of the file format. It has no seed (equal contents have equal bytes): it spares
 * comparisons of at most DOCUMENT_FIELDS_MAX names, and no table is built on it. */
OMENDB_INTERNAL uint32_t document_hash_name(const uint8_t *name, size_t size);

/* Whether `size` bytes at `document` are one, whole and in every detail: all that is read of it
 * afterwards lies inside. NULL, or what is wrong, for a sentence: "... names do not ascend". */
OMENDB_INTERNAL const char *document_check(const uint8_t *document, size_t size);

/* The field number `index`, in the order of names. */
OMENDB_INTERNAL void document_field(const uint8_t *document, uint32_t index,
                                    struct document_field *field);
/* The field of this name (hash: of it). 0: there is none, and *value is null. */
OMENDB_INTERNAL int document_find(const uint8_t *document, const uint8_t *name, uint32_t name_size,
                                  uint32_t hash, struct document_value *value);
/* Text number `index` of an array of texts is reached from the first on: *at begins at 0. 0: there
 * is no further one. */
OMENDB_INTERNAL int document_next_text(const struct document_value *texts, uint32_t *at,
                                       const uint8_t **text, uint32_t *size);
/* Below, at or above 0, in the order told above. */
OMENDB_INTERNAL int document_compare(const struct document_value *a,
                                     const struct document_value *b);

/* A document of a key (NULL: none) and a flat JSON object (NULL: none; RFC 8259, UTF-8, NUL at the
 * end is not needed). *document is NULL with *size 0 where there is neither a key nor a field; else
 * memory_free of *size bytes is due. OMENDB_INVALID names the place: byte, and what was expected
 * there; OMENDB_TOOBIG over the limits above; OMENDB_NOMEM. */
OMENDB_INTERNAL int document_create(struct memory *memory, const char *key, size_t key_size,
                                    const char *json, size_t json_size, uint8_t **document,
                                    size_t *size);
/* The fields of `base` (may be NULL) with those of the JSON object in place of them, or removed
 * where they are null (RFC 7396); the key stays. Returns as document_create. */
OMENDB_INTERNAL int document_merge(struct memory *memory, const uint8_t *base, const char *json,
                                   size_t json_size, uint8_t **document, size_t *size);
/* The same fields without a key; NULL with *size 0 where that leaves nothing. */
OMENDB_INTERNAL int document_without_key(struct memory *memory, const uint8_t *base,
                                         uint8_t **document, size_t *size);
/* The metadata as JSON ("{}" without fields), of all fields or of those named (an array of
 * NUL-terminated names; NULL: all), in the order in which they are stored, NUL-terminated, into
 * `out`, as far as `capacity` goes.
 * Returns the bytes that the whole takes, without the NUL. Numbers are written so that reading them
 * gives the same value; what JSON must escape is escaped, nothing else. */
OMENDB_INTERNAL size_t document_to_json(const uint8_t *document, const char *const *names,
                                        size_t name_count, char *out, size_t capacity);

#endif
