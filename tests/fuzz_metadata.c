/* fuzz_metadata.c: metadata from callers and from files. The first byte chooses what the others
 * are: JSON, of which documents are made that say the same; or a document, of which all is read if
 * it is accepted, and the same bytes are made of its JSON. In every second of those the length and
 * the hashes of names are put right before, or nothing would get past them. */
#include "fuzz.h"

#include "amalgamation/document.h"

#define FUZZ_METADATA_KEY "k"

static char *fuzz_metadata_to_json(const uint8_t *document, size_t *size)
{
    *size = document_to_json(document, NULL, 0, NULL, 0);
    char *json = fuzz_memory(NULL, *size + 1);
    FUZZ_CHECK(document_to_json(document, NULL, 0, json, *size + 1) == *size);
    FUZZ_CHECK(json[*size] == '\0');
    return json;
}

/* Touches every byte that may be read. */
static uint64_t fuzz_metadata_read(const uint8_t *document)
{
    struct document_field field;
    struct document_value value;
    const uint8_t *text;
    uint32_t size;
    uint64_t sum = document_key(document, &size) == NULL ? 0 : document_hash_name(document, size);
    for (uint32_t i = 0; i < document_field_count(document); i++) {
        uint32_t at = 0, count = 0;
        document_field(document, i, &field);
        const uint32_t hash = document_hash_name(field.name, field.name_size);
        FUZZ_CHECK(document_find(document, field.name, field.name_size, hash, &value));
        FUZZ_CHECK(document_compare(&value, &field.value) == 0);
        if (value.type == DOCUMENT_TEXT)
            sum += document_hash_name(value.text, value.size);
        while (value.type == DOCUMENT_TEXTS && document_next_text(&value, &at, &text, &size)) {
            sum += document_hash_name(text, size);
            count++;
        }
        FUZZ_CHECK(count == value.count);
    }
    return sum;
}

static int fuzz_metadata_has_null(const uint8_t *document)
{
    struct document_field field;
    int found = 0;
    for (uint32_t i = 0; i < document_field_count(document); i++) {
        document_field(document, i, &field);
        found |= field.value.type == DOCUMENT_NULL;
    }
    return found;
}

/* The document's own JSON makes the same again, and merged into it changes nothing but nulls. */
static void fuzz_metadata_again(struct memory *memory, const uint8_t *document, size_t size)
{
    uint8_t *again, *merged;
    size_t json_size, again_size, merged_size;
    uint32_t key_size;
    const char *key = (const char *)document_key(document, &key_size);
    char *json = fuzz_metadata_to_json(document, &json_size);
    FUZZ_CHECK(document_check(document, size) == NULL);
    fuzz_metadata_read(document);
    FUZZ_CHECK(document_create(memory, key, key_size, json, json_size, &again, &again_size) ==
               OMENDB_OK);
    FUZZ_CHECK(again_size == size && memcmp(again, document, size) == 0);
    memory_free(memory, again, again_size);

    FUZZ_CHECK(document_merge(memory, document, json, json_size, &merged, &merged_size) ==
               OMENDB_OK);
    FUZZ_CHECK(merged == NULL || document_check(merged, merged_size) == NULL);
    FUZZ_CHECK(fuzz_metadata_has_null(document) ||
               (merged_size == size && memcmp(merged, document, size) == 0));
    FUZZ_CHECK(!fuzz_metadata_has_null(merged));
    memory_free(memory, merged, merged_size);
    free(json);
}

/* Two texts, the second behind a NUL: one is merged into the other. */
static int fuzz_metadata_of_json(struct memory *memory, const char *json, size_t size)
{
    uint8_t *document, *merged;
    size_t document_size, merged_size;
    const char *second = size == 0 ? NULL : memchr(json, 0, size);
    const size_t first = second == NULL ? size : (size_t)(second - json);
    const int code = fuzz_sane(
        document_create(memory, FUZZ_METADATA_KEY, 1, json, first, &document, &document_size));
    if (code != OMENDB_OK)
        return 0;
    fuzz_metadata_again(memory, document, document_size);
    if (second != NULL && fuzz_sane(document_merge(memory, document, second + 1, size - first - 1,
                                                   &merged, &merged_size)) == OMENDB_OK) {
        fuzz_metadata_again(memory, merged, merged_size);
        memory_free(memory, merged, merged_size);
    }
    memory_free(memory, document, document_size);
    return 1;
}

static void fuzz_metadata_repair(uint8_t *document, size_t size)
{
    const size_t count = size < DOCUMENT_HEAD_BYTES ? 0 : document_field_count(document);
    if (size >= sizeof(uint32_t))
        format_put32(document, (uint32_t)size);
    for (size_t i = 0; i < count; i++) {
        uint8_t *entry = document + DOCUMENT_HEAD_BYTES + i * DOCUMENT_FIELD_BYTES;
        if ((size_t)(entry - document) + DOCUMENT_FIELD_BYTES > size)
            break;
        const size_t offset = format_get32(entry + 4), name = entry[8];
        if (offset <= size && name <= size - offset)
            format_put32(entry, document_hash_name(document + offset, name));
    }
}

static int fuzz_metadata_of_bytes(struct memory *memory, uint8_t *document, size_t size)
{
    if (document_check(document, size) != NULL)
        return 0;
    fuzz_metadata_again(memory, document, size);
    return 1;
}

static int fuzz_metadata_run(const uint8_t *data, size_t size)
{
    struct memory memory;
    int accepted;
    if (size == 0)
        return 0;
    /* of exactly its size, for the sanitizer */
    uint8_t *copy = fuzz_memory(NULL, size - 1);
    memcpy(copy, data + 1, size - 1);
    memory_init(&memory, &fuzz_allocator, 0);
    if (data[0] % 4 == 3)
        fuzz_metadata_repair(copy, size - 1);
    if (data[0] % 2 == 1)
        accepted = fuzz_metadata_of_bytes(&memory, copy, size - 1);
    else
        accepted = fuzz_metadata_of_json(&memory, (const char *)copy, size - 1);
    free(copy);
    FUZZ_CHECK(memory.used == 0);
    return accepted;
}

static const char *const fuzz_metadata_texts[] = {
    "{}",
    "{\"section\":\"editors\",\"installed_size\":4821,\"essential\":false,\"tag\":[\"c\",\"rust\"],"
    "\"popularity\":0.8731,\"homepage\":null,\"official\":true}",
    "{\"\":\"\",\"a\":[],\"b\":[\"\"],\"n\":-0.0,\"m\":-9223372036854775808}",
    " { \"\\u0061\\ud83d\\ude00\" : \"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\xC3\xA9\xF4\x8F\xBF\xBF\" "
    "} ",
    "{\"x\":1.7976931348623157e308,\"y\":5e-324,\"z\":2.2250738585072011e-308,\"w\":1e-400}",
    "{\"h\":9007199254740993.0000000000000000000000000001,\"i\":9223372036854775808}",
};

static void fuzz_metadata_seed(struct fuzz_seeds *seeds)
{
    const size_t count = sizeof fuzz_metadata_texts / sizeof fuzz_metadata_texts[0];
    for (size_t i = 0; i < count; i++) {
        const char *text = fuzz_metadata_texts[i], *next = fuzz_metadata_texts[(i + 1) % count];
        const size_t length = strlen(text), next_length = strlen(next);
        uint8_t *seed = fuzz_memory(NULL, length + next_length + 2);
        struct memory memory;
        uint8_t *document;
        size_t size;
        seed[0] = 0;
        memcpy(seed + 1, text, length + 1);
        memcpy(seed + length + 2, next, next_length);
        fuzz_add_seed(seeds, seed, length + next_length + 2);
        memory_init(&memory, &fuzz_allocator, 0);
        FUZZ_CHECK(document_create(&memory, FUZZ_METADATA_KEY, 1, text, length, &document, &size) ==
                   OMENDB_OK);
        seed = fuzz_memory(seed, size + 1);
        seed[0] = i % 2 == 0 ? 1 : 3;
        memcpy(seed + 1, document, size);
        fuzz_add_seed(seeds, seed, size + 1);
        memory_free(&memory, document, size);
        free(seed);
    }
}

#undef FUZZ_METADATA_KEY

FUZZ_TARGET(metadata, fuzz_mutate_bytes)
