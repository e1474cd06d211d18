/* test_documents.c: documents are what the JSON said, their bytes depend on nothing else, and bytes
 * from elsewhere are refused or safe to read.
 *
 *     test_documents --convert    turns lines of JSON into what is stored, as JSON again, or into
 *                                 "refused: " and why: for test_documents.py
 *
 * Random documents are made from a model, an array of fields, of which the test writes the JSON
 * itself: with white space and escapes wherever they may be. */
#include "internals.h"

#include <limits.h>

#include "failing.h"
#include "support.h"
#include "test.h"

#define FIELDS_MAX 24
#define TEXT_MAX   40
#define TEXTS_MAX  4
#define JSON_MAX   65536

static struct memory memory;

struct model_value {
    enum document_type type;
    int64_t integer;
    double real;
    char text[TEXTS_MAX][TEXT_MAX];
    uint32_t size[TEXTS_MAX];
    uint32_t count;
};

struct model_field {
    char name[TEXT_MAX];
    uint32_t name_size;
    struct model_value value;
};

struct model {
    struct model_field fields[FIELDS_MAX];
    size_t count;
};

struct json_text {
    char text[JSON_MAX];
    size_t size;
};

struct document {
    uint8_t *bytes;
    size_t size;
};

static const char *const characters[] = {"a",
                                         "b",
                                         "Z",
                                         "0",
                                         " ",
                                         "/",
                                         "\"",
                                         "\\",
                                         "\n",
                                         "\t",
                                         "\x01",
                                         "\x1f",
                                         "\x7f",
                                         "\xC3\xA9",
                                         "\xE2\x82\xAC",
                                         "\xED\x9F\xBF",
                                         "\xEF\xBF\xBF",
                                         "\xF0\x9F\x98\x80",
                                         "\xF4\x8F\xBF\xBF",
                                         ""};

#define CHARACTERS (sizeof characters / sizeof characters[0])

/* ------------------------------------------------------------------------------------------------
 * models */

static int chance(struct support_random *random, uint64_t below)
{
    return support_below(random, below) == 0;
}

/* The last character of the list is a NUL. */
static uint32_t random_text(struct support_random *random, char text[TEXT_MAX], uint64_t most)
{
    uint32_t size = 0;
    for (uint64_t i = support_below(random, most + 1); i > 0; i--) {
        const char *character =
            characters[support_below(random, chance(random, 2) ? 6 : CHARACTERS)];
        const size_t bytes = character[0] == '\0' ? 1 : strlen(character);
        if (size + bytes > TEXT_MAX)
            break;
        memcpy(text + size, character, bytes);
        size += (uint32_t)bytes;
    }
    return size;
}

static int64_t random_integer(struct support_random *random)
{
    const int64_t any = (int64_t)support_next(random);
    switch (support_below(random, 5)) {
    case 0:
        return any;
    case 1:
        return any >> 11;
    case 2:
        return INT64_MAX - (int64_t)support_below(random, 2000);
    case 3:
        return INT64_MIN + (int64_t)support_below(random, 2000);
    default:
        return (int64_t)support_below(random, 20) - 10;
    }
}

static double random_real(struct support_random *random)
{
    const uint64_t bits = support_next(random);
    double any;
    memcpy(&any, &bits, sizeof any);
    switch (support_below(random, 4)) {
    case 0:
        return any - any == 0 ? any : 0.5;
    case 1:
        return (double)random_integer(random);
    case 2:
        return (double)random_integer(random) / 8;
    default:
        return (double)((int64_t)support_below(random, 20) - 10);
    }
}

static void random_value(struct support_random *random, struct model_value *value)
{
    memset(value, 0, sizeof *value);
    value->type = (enum document_type)support_below(random, DOCUMENT_TYPES);
    value->integer = value->type == DOCUMENT_INTEGER ? random_integer(random) : 0;
    value->real = value->type == DOCUMENT_REAL ? random_real(random) : 0;
    if (value->type == DOCUMENT_TEXT)
        value->count = 1;
    else if (value->type == DOCUMENT_TEXTS)
        value->count = (uint32_t)support_below(random, TEXTS_MAX + 1);
    for (uint32_t i = 0; i < value->count; i++)
        value->size[i] = random_text(random, value->text[i], 12);
}

static struct model_field *model_find(struct model *model, const char *name, uint32_t size)
{
    for (size_t i = 0; i < model->count; i++)
        if (model->fields[i].name_size == size && memcmp(model->fields[i].name, name, size) == 0)
            return &model->fields[i];
    return NULL;
}

/* Names are short, so that they are often equal, or one begins as another. */
static void random_model(struct support_random *random, struct model *model, size_t fields)
{
    model->count = 0;
    for (size_t i = 0; i < fields; i++) {
        struct model_field *field = &model->fields[model->count];
        field->name_size = random_text(random, field->name, 3);
        random_value(random, &field->value);
        model->count += model_find(model, field->name, field->name_size) == NULL;
    }
}

static void put(struct json_text *json, const char *text)
{
    const size_t size = strlen(text);
    memcpy(json->text + json->size, text, size);
    json->size += size;
}

static void put_space(struct json_text *json, struct support_random *random)
{
    static const char *const spaces[] = {" ", "\n", "\r", "\t"};
    while (chance(random, 4))
        put(json, spaces[support_below(random, 4)]);
}

/* Escaped where it must be, and often elsewhere. */
static void put_text(struct json_text *json, struct support_random *random, const char *text,
                     uint32_t size)
{
    put(json, "\"");
    for (uint32_t i = 0; i < size; i++) {
        const unsigned char byte = (unsigned char)text[i];
        char escape[8];
        const int must = byte == '"' || byte == '\\' || byte < ' ';
        if (must || (byte < 0x80 && chance(random, 8)))
            snprintf(escape, sizeof escape, chance(random, 2) ? "\\u%04X" : "\\u%04x", byte);
        else
            snprintf(escape, sizeof escape, "%c", byte);
        put(json, escape);
    }
    put(json, "\"");
}

static void put_value(struct json_text *json, struct support_random *random,
                      const struct model_value *value)
{
    static const char *const words[] = {"null", "false", "true"};
    char number[64];
    if (value->type == DOCUMENT_INTEGER) {
        snprintf(number, sizeof number, "%lld", (long long)value->integer);
        put(json, number);
    } else if (value->type == DOCUMENT_REAL) {
        snprintf(number, sizeof number, "%.*e", 16 + (int)support_below(random, 9), value->real);
        put(json, number);
    } else if (value->type == DOCUMENT_TEXT) {
        put_text(json, random, value->text[0], value->size[0]);
    } else if (value->type == DOCUMENT_TEXTS) {
        put(json, "[");
        for (uint32_t i = 0; i < value->count; i++) {
            put(json, i == 0 ? "" : ",");
            put_space(json, random);
            put_text(json, random, value->text[i], value->size[i]);
            put_space(json, random);
        }
        put(json, "]");
    } else {
        put(json, words[value->type]);
    }
}

static void model_to_json(const struct model *model, struct support_random *random,
                          struct json_text *json)
{
    json->size = 0;
    put_space(json, random);
    put(json, "{");
    for (size_t i = 0; i < model->count; i++) {
        const struct model_field *field = &model->fields[i];
        put(json, i == 0 ? "" : ",");
        put_space(json, random);
        put_text(json, random, field->name, field->name_size);
        put_space(json, random);
        put(json, ":");
        put_space(json, random);
        put_value(json, random, &field->value);
        put_space(json, random);
    }
    put(json, "}");
    put_space(json, random);
}

static void shuffle(struct support_random *random, struct model *model)
{
    for (size_t i = model->count; i > 1; i--) {
        const size_t other = (size_t)support_below(random, i);
        const struct model_field field = model->fields[other];
        model->fields[other] = model->fields[i - 1];
        model->fields[i - 1] = field;
    }
}

/* ------------------------------------------------------------------------------------------------
 * documents */

static int create(const char *key, const char *json, size_t size, struct document *document)
{
    return document_create(&memory, key, key == NULL ? 0 : strlen(key), json, size,
                           &document->bytes, &document->size);
}

static int create_of(const char *key, const char *text, struct document *document)
{
    return create(key, text, strlen(text), document);
}

static void release(struct document *document)
{
    memory_free(&memory, document->bytes, document->size);
    document->bytes = NULL;
}

static int same(const struct document *a, const struct document *b)
{
    return a->size == b->size && (a->size == 0 || memcmp(a->bytes, b->bytes, a->size) == 0);
}

static int same_value(const struct model_value *model, const struct document_value *value)
{
    const uint8_t *text;
    uint32_t at = 0, size, count = 0;
    if (model->type != value->type)
        return 0;
    if (model->type == DOCUMENT_INTEGER)
        return model->integer == value->integer;
    if (model->type == DOCUMENT_REAL)
        return memcmp(&model->real, &value->real, sizeof value->real) == 0;
    if (model->type == DOCUMENT_TEXT)
        return value->size == model->size[0] &&
               memcmp(value->text, model->text[0], value->size) == 0;
    if (model->type != DOCUMENT_TEXTS)
        return 1;
    for (; document_next_text(value, &at, &text, &size); count++)
        if (count >= model->count || size != model->size[count] ||
            memcmp(text, model->text[count], size) != 0)
            return 0;
    return count == model->count && value->count == model->count;
}

/* It holds what the model does, found by name and in order. */
static void holds(const struct document *document, struct model *model)
{
    struct document_value value;
    struct document_field field, before = {NULL, 0, {DOCUMENT_NULL, 0, 0, NULL, 0, 0}};
    CHECK_EQ_INT(document_size(document->bytes), document->size);
    CHECK_EQ_INT(document_field_count(document->bytes), model->count);
    CHECK(document->bytes == NULL || document_check(document->bytes, document->size) == NULL);
    for (size_t i = 0; i < model->count; i++) {
        const uint8_t *name = (const uint8_t *)model->fields[i].name;
        const uint32_t size = model->fields[i].name_size;
        CHECK(document_find(document->bytes, name, size, document_hash_name(name, size), &value));
        CHECK(same_value(&model->fields[i].value, &value));
    }
    for (uint32_t i = 0; i < model->count; i++, before = field) {
        document_field(document->bytes, i, &field);
        const struct model_field *found =
            model_find(model, (const char *)field.name, field.name_size);
        CHECK(found != NULL && same_value(&found->value, &field.value));
        const uint32_t common =
            field.name_size < before.name_size ? field.name_size : before.name_size;
        const int order = i == 0 ? 0 : memcmp(before.name, field.name, common);
        CHECK(i == 0 || order < 0 || (order == 0 && before.name_size < field.name_size));
    }
}

/* ------------------------------------------------------------------------------------------------
 */

static struct model model, patch;
static struct json_text json;
static char out[JSON_MAX];

TEST(a_document_holds_what_the_json_said)
{
    struct support_random random = {support_seed(1)};
    memory_init(&memory, NULL, 0);
    for (uint64_t i = support_scaled(20000, 2000); i > 0; i--) {
        struct document document, again;
        const char *key = chance(&random, 2) ? "k\xC3\xA9y" : NULL;
        uint32_t key_size;
        random_model(&random, &model, (size_t)support_below(&random, FIELDS_MAX));
        model_to_json(&model, &random, &json);
        CHECK_EQ_INT(create(key, json.text, json.size, &document), OMENDB_OK);
        CHECK((document.bytes == NULL) == (key == NULL && model.count == 0));
        holds(&document, &model);
        const uint8_t *found = document_key(document.bytes, &key_size);
        CHECK_EQ_INT(key_size, key == NULL ? 0 : strlen(key));
        CHECK(key == NULL ? found == NULL : memcmp(found, key, key_size) == 0);

        shuffle(&random, &model);
        model_to_json(&model, &random, &json);
        CHECK_EQ_INT(create(key, json.text, json.size, &again), OMENDB_OK);
        CHECK(same(&document, &again));
        release(&again);

        const size_t size = document_to_json(document.bytes, NULL, 0, out, sizeof out);
        CHECK(size == strlen(out) || memchr(out, 0, size) != NULL);
        CHECK_EQ_INT(create(key, out, size, &again), OMENDB_OK);
        CHECK(same(&document, &again));
        release(&again);
        release(&document);
    }
    CHECK(memory.used == 0);
}

TEST(a_name_that_is_not_there_is_not_found)
{
    static const char text[] = "{\"b\":1,\"bb\":2,\"\":null,\"d\":true}";
    static const char *const names[] = {"a", "bbb", "c", "B", "dd"};
    struct document_value value;
    struct document document;
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(create("k", text, sizeof text - 1, &document), OMENDB_OK);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const uint8_t *name = (const uint8_t *)names[i];
        const uint32_t size = (uint32_t)strlen(names[i]);
        CHECK(!document_find(document.bytes, name, size, document_hash_name(name, size), &value));
        CHECK_EQ_INT(value.type, DOCUMENT_NULL);
        /* as if its hash were that of a name that is there */
        CHECK(!document_find(document.bytes, name, size,
                             document_hash_name((const uint8_t *)"b", 1), &value));
        CHECK(!document_find(document.bytes, name, size,
                             document_hash_name((const uint8_t *)"bb", 2), &value));
    }
    CHECK(!document_find(document.bytes, (const uint8_t *)"b", 1,
                         document_hash_name((const uint8_t *)"bb", 2), &value));
    CHECK(document_find(document.bytes, (const uint8_t *)"", 0,
                        document_hash_name((const uint8_t *)"", 0), &value));
    CHECK(!document_find(NULL, (const uint8_t *)"b", 1, 0, &value));
    release(&document);
}

TEST(every_beginning_of_an_object_is_refused)
{
    struct support_random random = {support_seed(2)};
    memory_init(&memory, NULL, 0);
    for (uint64_t i = support_scaled(200, 20); i > 0; i--) {
        struct document document;
        random_model(&random, &model, 6);
        model_to_json(&model, &random, &json);
        while (json.text[json.size - 1] != '}')
            json.size--;
        for (size_t size = 0; size < json.size; size++) {
            /* a block of its own, so that a sanitizer sees what is read behind it */
            char *copy = malloc(size + (size == 0));
            CHECK(copy != NULL);
            memcpy(copy, json.text, size);
            CHECK_EQ_INT(create(NULL, copy, size, &document), OMENDB_INVALID);
            CHECK(document.bytes == NULL && document.size == 0);
            free(copy);
        }
    }
    CHECK(memory.used == 0);
}

/* Reads all of what was accepted; returns a sum, so that nothing is left out. */
static uint64_t read_completely(const uint8_t *bytes)
{
    struct document_field field;
    struct document_value value;
    uint64_t sum = 0;
    uint32_t size;
    const uint8_t *text = document_key(bytes, &size);
    for (uint32_t i = 0; i < size; i++)
        sum += text[i];
    for (uint32_t i = 0; i < document_field_count(bytes); i++) {
        uint32_t at = 0;
        document_field(bytes, i, &field);
        for (uint32_t j = 0; j < field.name_size; j++)
            sum += field.name[j];
        sum += (uint64_t)document_find(bytes, field.name, field.name_size,
                                       document_hash_name(field.name, field.name_size), &value);
        while (value.type == DOCUMENT_TEXTS && document_next_text(&value, &at, &text, &size))
            for (uint32_t j = 0; j < size; j++)
                sum += text[j];
    }
    return sum + document_to_json(bytes, NULL, 0, out, sizeof out);
}

/* What is accepted has one form: from its JSON the same bytes are made. */
static void refused_or_safe(const uint8_t *bytes, size_t size, uint64_t *accepted)
{
    char key[DOCUMENT_KEY_MAX];
    struct document again;
    uint32_t key_size;
    if (document_check(bytes, size) != NULL)
        return;
    *accepted += 1;
    CHECK(read_completely(bytes) > 0);
    const uint8_t *found = document_key(bytes, &key_size);
    if (found != NULL)
        memcpy(key, found, key_size);
    const size_t length = document_to_json(bytes, NULL, 0, out, sizeof out);
    CHECK_EQ_INT(document_create(&memory, found == NULL ? NULL : key, key_size, out, length,
                                 &again.bytes, &again.size),
                 OMENDB_OK);
    CHECK(again.size == size && memcmp(again.bytes, bytes, size) == 0);
    release(&again);
}

static const char mutated[] =
    "{\"b\":[\"x\",\"\",\"\xE2\x82\xAC\"],\"integer\":-5,\"\":null,\"real\":0.25,\"text\":\"ab\","
    "\"t\":true,\"none\":[]}";

static void each_byte_changed(struct document *document, uint64_t *accepted)
{
    for (size_t at = 0; at < document->size; at++) {
        const uint8_t before = document->bytes[at];
        for (unsigned byte = 0; byte < 256; byte++) {
            document->bytes[at] = (uint8_t)byte;
            refused_or_safe(document->bytes, document->size, accepted);
        }
        document->bytes[at] = before;
    }
    for (size_t size = 0; size <= document->size; size++) {
        uint8_t *copy = malloc(size + (size == 0));
        CHECK(copy != NULL);
        memcpy(copy, document->bytes, size);
        CHECK((document_check(copy, size) == NULL) == (size == document->size));
        free(copy);
    }
}

/* Of all but the first the last value ends where the document does. */
TEST(each_byte_changed_is_refused_or_safe_to_read)
{
    static const char *const texts[] = {mutated, "{\"abcd\":true}", "{\"abcd\":\"1234\"}",
                                        "{\"abcd\":[]}", "{\"abcd\":[\"1234\"]}"};
    memory_init(&memory, NULL, 0);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct document document;
        uint64_t accepted = 0;
        CHECK_EQ_INT(create_of(i == 0 ? "key" : NULL, texts[i], &document), OMENDB_OK);
        each_byte_changed(&document, &accepted);
        CHECK(accepted > document.size);
        release(&document);
    }
    CHECK(memory.used == 0);
}

TEST(some_bytes_changed_are_refused_or_safe_to_read)
{
    struct support_random random = {support_seed(8)};
    struct document document;
    uint64_t accepted = 0;
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(create("key", mutated, sizeof mutated - 1, &document), OMENDB_OK);
    uint8_t *copy = malloc(document.size);
    CHECK(copy != NULL);
    for (uint64_t i = support_scaled(300000, 30000); i > 0; i--) {
        memcpy(copy, document.bytes, document.size);
        for (uint64_t changes = 1 + support_below(&random, 4); changes > 0; changes--) {
            const uint64_t at = support_below(&random, document.size);
            copy[at] = (uint8_t)(chance(&random, 2) ? support_next(&random)
                                                    : copy[at] + support_below(&random, 9) - 4);
        }
        refused_or_safe(copy, document.size, &accepted);
    }
    CHECK(accepted > 0);
    free(copy);
    release(&document);
    CHECK(memory.used == 0);
}

TEST(what_is_wrong_with_a_document_is_told)
{
    struct document document;
    const size_t key = DOCUMENT_HEAD_BYTES + 2 * DOCUMENT_FIELD_BYTES;
    const struct {
        size_t at;
        uint8_t byte;
        const char *wrong;
    } cases[] = {
        {0, 0, "another length than it says"},
        {4, 1, "the key is not UTF-8, or has a NUL"},
        {5, 9, "more fields, or a longer key, than fit"},
        {7, 5, "more fields, or a longer key, than fit"},
        {8, 0, "the hash of a name is wrong"},
        {12, 0, "a field does not lie behind the one before it"},
        {16, 200, "a name is too long"},
        {18, 7, "a field has a type that is not known"},
        {19, 1, "a byte that must be 0 is not"},
        {key, 0, "the key is not UTF-8, or has a NUL"},
        {key, 0xFF, "the key is not UTF-8, or has a NUL"},
        {key + 2, 0xFF, "a name is not UTF-8"},
        {key + 4, 9, "a text of an array is longer than the array"},
        {key + 4, 11, "an array is longer than its texts"},
        {key + 5, 1, "a value reaches beyond the end"},
        {key + 8, 1, "an array is longer than its texts"},
        {key + 8, 3, "a text of an array is longer than the array"},
        {key + 16, 0xFF, "a text of an array is not UTF-8"},
        {63, 1, "padding that is not 0"},
    };
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(create_of("\xC3\xA9", "{\"ab\":[\"x\",\"y\"],\"b\":1.5}", &document), OMENDB_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint8_t before = document.bytes[cases[i].at];
        document.bytes[cases[i].at] = cases[i].byte;
        const char *wrong = document_check(document.bytes, document.size);
        CHECK(wrong != NULL);
        CHECK_EQ_STR(wrong, cases[i].wrong);
        document.bytes[cases[i].at] = before;
    }
    CHECK(document_check(document.bytes, document.size) == NULL);
    release(&document);
}

TEST(names_that_do_not_ascend_and_numbers_that_are_not_finite_are_refused)
{
    struct document document;
    const double infinite = 1e300 * 1e300;
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(create_of(NULL, "{\"a\":1.0,\"b\":2.0}", &document), OMENDB_OK);
    uint8_t *name = document.bytes + DOCUMENT_HEAD_BYTES + 2 * DOCUMENT_FIELD_BYTES;
    for (uint8_t letter = 'a'; letter <= 'd'; letter++) {
        const uint32_t hash = document_hash_name(&letter, 1);
        name[0] = letter;
        memcpy(document.bytes + DOCUMENT_HEAD_BYTES, &hash, sizeof hash);
        const char *wrong = document_check(document.bytes, document.size);
        if (letter == 'a')
            CHECK(wrong == NULL);
        else
            CHECK_EQ_STR(wrong, "names do not ascend");
    }
    name[0] = 'a';
    const uint32_t hash = document_hash_name(name, 1);
    memcpy(document.bytes + DOCUMENT_HEAD_BYTES, &hash, sizeof hash);
    memcpy(name + 1, &infinite, sizeof infinite);
    CHECK_EQ_STR(document_check(document.bytes, document.size), "a number is not finite");
    release(&document);
}

/* The byte more is one of padding. */
TEST(a_name_of_256_bytes_is_refused)
{
    struct document document;
    char text[300];
    memory_init(&memory, NULL, 0);
    snprintf(text, sizeof text, "{\"%0255d\":null}", 0);
    CHECK_EQ_INT(create_of(NULL, text, &document), OMENDB_OK);
    const uint8_t *name = document.bytes + DOCUMENT_HEAD_BYTES + DOCUMENT_FIELD_BYTES;
    const uint32_t hash = document_hash_name(name, 256);
    memcpy(document.bytes + DOCUMENT_HEAD_BYTES, &hash, sizeof hash);
    document.bytes[DOCUMENT_HEAD_BYTES + 8] = 0;
    document.bytes[DOCUMENT_HEAD_BYTES + 9] = 1;
    CHECK_EQ_STR(document_check(document.bytes, document.size), "a name is too long");
    release(&document);
}

/* Fields without values, whose names are four digits; behind them the padding. */
static size_t document_by_hand(uint8_t *bytes, uint16_t key_size, uint16_t fields)
{
    uint8_t *entry = bytes + DOCUMENT_HEAD_BYTES;
    size_t at = DOCUMENT_HEAD_BYTES + (size_t)fields * DOCUMENT_FIELD_BYTES + key_size;
    memset(bytes, 0, at + 4 * (size_t)fields + 8);
    memset(bytes + at - key_size, 'k', key_size);
    for (unsigned i = 0; i < fields; i++, entry += DOCUMENT_FIELD_BYTES, at += 4) {
        const uint32_t offset = (uint32_t)at;
        const uint16_t name_size = 4;
        char name[16];
        snprintf(name, sizeof name, "%04u", i);
        memcpy(bytes + at, name, 4);
        const uint32_t hash = document_hash_name(bytes + at, 4);
        memcpy(entry, &hash, sizeof hash);
        memcpy(entry + 4, &offset, sizeof offset);
        memcpy(entry + 8, &name_size, sizeof name_size);
    }
    at = (at + 7) / 8 * 8;
    const uint32_t size = (uint32_t)at;
    memcpy(bytes, &size, sizeof size);
    memcpy(bytes + 4, &key_size, sizeof key_size);
    memcpy(bytes + 6, &fields, sizeof fields);
    return at;
}

TEST(a_document_of_too_much_or_nothing_or_an_odd_length_is_refused)
{
    static uint8_t bytes[32768];
    static const char too_much[] = "more fields, or a longer key, than fit";
    CHECK(document_check(bytes, document_by_hand(bytes, 1024, 1024)) == NULL);
    CHECK_EQ_STR(document_check(bytes, document_by_hand(bytes, 1025, 1024)), too_much);
    CHECK_EQ_STR(document_check(bytes, document_by_hand(bytes, 1024, 1025)), too_much);
    CHECK(document_check(bytes, document_by_hand(bytes, 1, 0)) == NULL);
    CHECK_EQ_STR(document_check(bytes, document_by_hand(bytes, 0, 0)), "neither a key nor a field");
    CHECK_EQ_INT(document_by_hand(bytes, 1, 0), 16);
    for (uint8_t size = 9; size < 16; size++) {
        bytes[0] = size;
        CHECK_EQ_STR(document_check(bytes, size), "a length that none has");
    }
}

/* Longer than an int64_t and a double can tell apart: of 64 bits of mantissa, or more. */
static int compare_models(const struct model_value *a, const struct model_value *b)
{
    static const int ranks[DOCUMENT_TYPES] = {0, 1, 2, 3, 3, 4, 5};
    if (ranks[a->type] != ranks[b->type])
        return ranks[a->type] - ranks[b->type];
    if (ranks[a->type] == 3) {
        const long double left = a->type == DOCUMENT_INTEGER ? (long double)a->integer : a->real;
        const long double right = b->type == DOCUMENT_INTEGER ? (long double)b->integer : b->real;
        return (left > right) - (left < right);
    }
    for (uint32_t i = 0; i < a->count && i < b->count; i++) {
        const uint32_t common = a->size[i] < b->size[i] ? a->size[i] : b->size[i];
        const int order = memcmp(a->text[i], b->text[i], common);
        if (order != 0)
            return order;
        if (a->size[i] != b->size[i])
            return a->size[i] < b->size[i] ? -1 : 1;
    }
    return (a->count > b->count) - (a->count < b->count);
}

static int sign(int order)
{
    return (order > 0) - (order < 0);
}

TEST(values_compare_exactly_in_the_order_of_their_types)
{
    struct support_random random = {support_seed(9)};
    memory_init(&memory, NULL, 0);
    for (uint64_t i = support_scaled(20000, 2000); i > 0; i--) {
        struct document document;
        struct document_value left, right;
        model.count = 2;
        for (int side = 0; side < 2; side++) {
            random_value(&random, &model.fields[side].value);
            model.fields[side].name[0] = side == 0 ? 'a' : 'b';
            model.fields[side].name_size = 1;
        }
        /* near one another */
        if (model.fields[0].value.type == DOCUMENT_INTEGER && chance(&random, 2)) {
            model.fields[1].value = model.fields[0].value;
            model.fields[1].value.type = DOCUMENT_REAL;
            model.fields[1].value.real = (double)model.fields[0].value.integer;
        }
        model_to_json(&model, &random, &json);
        CHECK_EQ_INT(create(NULL, json.text, json.size, &document), OMENDB_OK);
        struct document_field field;
        document_field(document.bytes, 0, &field);
        left = field.value;
        document_field(document.bytes, 1, &field);
        right = field.value;
        const int expected = sign(compare_models(&model.fields[0].value, &model.fields[1].value));
        CHECK_EQ_INT(sign(document_compare(&left, &right)), expected);
        CHECK_EQ_INT(sign(document_compare(&right, &left)), -expected);
        CHECK_EQ_INT(document_compare(&left, &left), 0);
        release(&document);
    }
}

TEST(an_integer_and_a_real_that_round_to_the_same_are_told_apart)
{
    static const struct {
        int64_t integer;
        double real;
        int order;
    } cases[] = {
        {INT64_MAX, 0x1p63, -1},
        {INT64_MAX, 0x1.fffffffffffffp62, 1},
        {INT64_MIN, -0x1p63, 0},
        {INT64_MIN, -0x1.0000000000001p63, 1},
        {INT64_MIN + 1, -0x1p63, 1},
        {9007199254740993, 9007199254740992.0, 1},
        {-9007199254740993, -9007199254740992.0, -1},
        {9007199254740991, 9007199254740992.0, -1},
        {0, -0.0, 0},
        {0, 5e-324, -1},
        {0, -5e-324, 1},
        {-1, -0.5, -1},
        {-1, -1.5, 1},
        {1, 1.5, -1},
        {2, 1.5, 1},
        {INT64_MAX, 1e300, -1},
        {INT64_MIN, -1e300, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct document_value integer = {DOCUMENT_INTEGER, cases[i].integer, 0, NULL, 0, 0};
        const struct document_value real = {DOCUMENT_REAL, 0, cases[i].real, NULL, 0, 0};
        CHECK_EQ_INT(document_compare(&integer, &real), cases[i].order);
        CHECK_EQ_INT(document_compare(&real, &integer), -cases[i].order);
    }
}

/* ------------------------------------------------------------------------------------------------
 * merging */

TEST(a_merge_replaces_adds_and_removes_and_keeps_the_key)
{
    struct support_random random = {support_seed(10)};
    memory_init(&memory, NULL, 0);
    for (uint64_t i = support_scaled(10000, 1000); i > 0; i--) {
        struct document base, merged, expected;
        const char *key = chance(&random, 2) ? "k" : NULL;
        random_model(&random, &model, (size_t)support_below(&random, FIELDS_MAX / 2));
        model_to_json(&model, &random, &json);
        CHECK_EQ_INT(create(key, json.text, json.size, &base), OMENDB_OK);
        random_model(&random, &patch, (size_t)support_below(&random, FIELDS_MAX / 2));
        model_to_json(&patch, &random, &json);
        CHECK_EQ_INT(
            document_merge(&memory, base.bytes, json.text, json.size, &merged.bytes, &merged.size),
            OMENDB_OK);
        for (size_t j = 0; j < patch.count; j++) {
            struct model_field *old =
                model_find(&model, patch.fields[j].name, patch.fields[j].name_size);
            if (patch.fields[j].value.type != DOCUMENT_NULL) {
                if (old == NULL)
                    old = &model.fields[model.count++];
                *old = patch.fields[j];
            } else if (old != NULL) {
                *old = model.fields[--model.count];
            }
        }
        holds(&merged, &model);
        model_to_json(&model, &random, &json);
        CHECK_EQ_INT(create(key, json.text, json.size, &expected), OMENDB_OK);
        CHECK(same(&merged, &expected));
        release(&base);
        release(&merged);
        release(&expected);
    }
    CHECK(memory.used == 0);
}

TEST(a_merge_of_nothing_changes_nothing_and_a_wrong_one_is_refused)
{
    struct document base, merged;
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(create_of("k", "{\"a\":1,\"n\":null}", &base), OMENDB_OK);
    CHECK_EQ_INT(document_merge(&memory, base.bytes, NULL, 0, &merged.bytes, &merged.size),
                 OMENDB_OK);
    CHECK(same(&base, &merged));
    release(&merged);
    CHECK_EQ_INT(document_merge(&memory, base.bytes, "{}", 2, &merged.bytes, &merged.size),
                 OMENDB_OK);
    CHECK(same(&base, &merged));
    release(&merged);
    CHECK_EQ_INT(
        document_merge(&memory, base.bytes, "{\"a\":2,\"a\":3}", 13, &merged.bytes, &merged.size),
        OMENDB_INVALID);
    CHECK(merged.bytes == NULL && merged.size == 0);
    CHECK_EQ_INT(document_merge(&memory, base.bytes, "{\"a\":null,\"a\":3}", 16, &merged.bytes,
                                &merged.size),
                 OMENDB_INVALID);
    CHECK_EQ_INT(document_merge(&memory, NULL, "{\"a\":null}", 10, &merged.bytes, &merged.size),
                 OMENDB_OK);
    CHECK(merged.bytes == NULL && merged.size == 0);
    CHECK_EQ_INT(document_merge(&memory, base.bytes, "{\"a\":null,\"n\":null}", 19, &merged.bytes,
                                &merged.size),
                 OMENDB_OK);
    CHECK_EQ_INT(document_field_count(merged.bytes), 0);
    CHECK_EQ_INT(merged.size, 16);
    release(&merged);
    release(&base);
    CHECK(memory.used == 0);
}

/* ------------------------------------------------------------------------------------------------
 * writing JSON */

TEST(only_named_fields_are_written_and_only_what_fits)
{
    static const char text[] = "{\"c\":[\"x\",\"y\"],\"a\":1,\"b\":\"q\\\"\\u0001\"}";
    static const char all[] = "{\"a\":1,\"b\":\"q\\\"\\u0001\",\"c\":[\"x\",\"y\"]}";
    const char *const some[] = {"c", "zz", "a", "c"};
    struct document document;
    char small[64];
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(create("k", text, sizeof text - 1, &document), OMENDB_OK);
    CHECK_EQ_INT(document_to_json(document.bytes, some, 4, out, sizeof out), 21);
    CHECK_EQ_STR(out, "{\"a\":1,\"c\":[\"x\",\"y\"]}");
    document_to_json(document.bytes, some, 0, out, sizeof out);
    CHECK_EQ_STR(out, "{}");
    for (size_t capacity = 0; capacity < sizeof small; capacity++) {
        memset(small, '#', sizeof small);
        CHECK_EQ_INT(document_to_json(document.bytes, NULL, 0, small, capacity), sizeof all - 1);
        const size_t fits = capacity < sizeof all ? capacity : sizeof all;
        CHECK(fits == 0 || (strlen(small) == fits - 1 && memcmp(small, all, fits - 1) == 0));
        for (size_t i = fits; i < sizeof small; i++)
            CHECK(small[i] == '#');
    }
    release(&document);
    CHECK_EQ_INT(document_to_json(NULL, NULL, 0, out, sizeof out), 2);
    CHECK_EQ_STR(out, "{}");
    CHECK_EQ_INT(document_to_json(NULL, NULL, 0, NULL, 0), 2);
}

/* ------------------------------------------------------------------------------------------------
 * limits */

static char large[3 << 20];

/* {"f0":0,...} */
static size_t many_fields(uint32_t count, uint32_t first)
{
    size_t size = 0;
    for (uint32_t i = 0; i < count; i++)
        size += (size_t)sprintf(large + size, "%s\"f%u\":%u", i == 0 ? "{" : ",", first + i, i);
    return size + (size_t)sprintf(large + size, "}");
}

TEST(fields_names_keys_and_documents_have_limits)
{
    struct document document, merged;
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(create(NULL, large, many_fields(1024, 0), &document), OMENDB_OK);
    CHECK_EQ_INT(document_field_count(document.bytes), 1024);
    CHECK(document_check(document.bytes, document.size) == NULL);
    CHECK_EQ_INT(document_merge(&memory, document.bytes, large, many_fields(1024, 0), &merged.bytes,
                                &merged.size),
                 OMENDB_OK);
    CHECK(same(&document, &merged));
    release(&merged);
    CHECK_EQ_INT(document_merge(&memory, document.bytes, large, many_fields(1024, 1), &merged.bytes,
                                &merged.size),
                 OMENDB_TOOBIG);
    CHECK_EQ_STR(omendb_errmsg(), "metadata: 1025 fields; 1024 are allowed");
    release(&document);
    CHECK_EQ_INT(create(NULL, large, many_fields(1025, 0), &document), OMENDB_TOOBIG);
    CHECK_EQ_STR(omendb_errmsg(), "metadata: 1025 fields or more; 1024 are allowed");

    for (int size = 255; size <= 256; size++) {
        const int length = sprintf(large, "{\"a\":1,\"%0*d\":1}", size, 0);
        CHECK_EQ_INT(create(NULL, large, (size_t)length, &document),
                     size == 255 ? OMENDB_OK : OMENDB_TOOBIG);
        release(&document);
    }
    CHECK_EQ_STR(omendb_errmsg(),
                 "metadata: byte 7: the name of a field has 256 bytes; 255 are allowed");
    for (int size = 1024; size <= 1025; size++) {
        sprintf(large, "%0*d", size, 0);
        CHECK_EQ_INT(create(large, NULL, 0, &document), size == 1024 ? OMENDB_OK : OMENDB_TOOBIG);
        release(&document);
    }
    CHECK_EQ_STR(omendb_errmsg(), "the key has 1025 bytes; 1024 are allowed");
    CHECK(memory.used == 0);
}

/* {"a":"xxx..."}: head, one field, name and count, and the text to a multiple of 8. */
TEST(a_document_takes_a_mebibyte_at_most)
{
    const size_t most = DOCUMENT_BYTES_MAX - DOCUMENT_HEAD_BYTES - DOCUMENT_FIELD_BYTES - 1 - 4;
    struct document document, merged;
    memory_init(&memory, NULL, 0);
    for (size_t size = most - 1; size <= most + 2; size++) {
        memcpy(large, "{\"a\":\"", 6);
        memset(large + 6, 'x', size);
        memcpy(large + 6 + size, "\"}", 2);
        CHECK_EQ_INT(create(NULL, large, size + 8, &document),
                     size <= most ? OMENDB_OK : OMENDB_TOOBIG);
        CHECK(size > most || document_check(document.bytes, document.size) == NULL);
        if (size <= most) {
            CHECK_EQ_INT(document_merge(&memory, document.bytes, "{\"b\":1}", 7, &merged.bytes,
                                        &merged.size),
                         OMENDB_TOOBIG);
        }
        release(&document);
    }
    memset(large + 6, 'x', sizeof large - 8);
    memcpy(large + sizeof large - 2, "\"}", 2);
    CHECK_EQ_INT(create(NULL, large, sizeof large, &document), OMENDB_TOOBIG);
    CHECK_EQ_STR(omendb_errmsg(), "metadata: 1048577 bytes or more; 1048576 are allowed");
    memcpy(large + sizeof large - 5, "\":1}", 4);
    memcpy(large, "{   \"x", 6);
    CHECK_EQ_INT(create(NULL, large, sizeof large - 1, &document), OMENDB_TOOBIG);
    /* longer as JSON, by escapes and white space, is no reason */
    memset(large, ' ', sizeof large);
    memcpy(large + sizeof large - 20, "{\"a\":\"\\u0041\"}", 14);
    CHECK_EQ_INT(create(NULL, large, sizeof large, &document), OMENDB_OK);
    CHECK_EQ_INT(document.size, 32);
    release(&document);
    CHECK(memory.used == 0);
}

/* The field that takes the most bytes for those of its JSON. */
TEST(no_json_outgrows_the_block_that_its_length_gives_it)
{
    static const char *const fields[] = {"\"\":0", "\"\":[]", "\"\":[\"\",\"\",\"\"]", "\"a\":1",
                                         "\"\":\"\""};
    struct document document;
    memory_init(&memory, NULL, 0);
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const int size = sprintf(large, "{%s}", fields[i]);
        CHECK_EQ_INT(create(NULL, large, (size_t)size, &document), OMENDB_OK);
        release(&document);
    }
    for (uint32_t count = 1; count < 30; count++) {
        CHECK_EQ_INT(create(NULL, large, many_fields(count, 0), &document), OMENDB_OK);
        release(&document);
    }
    size_t size = (size_t)sprintf(large, "{\"\":[\"\"");
    while (size < 1 << 18)
        size += (size_t)sprintf(large + size, ",\"\"");
    size += (size_t)sprintf(large + size, "]}");
    CHECK_EQ_INT(create(NULL, large, size, &document), OMENDB_OK);
    CHECK(document_check(document.bytes, document.size) == NULL);
    release(&document);
}

TEST(a_key_is_utf8_without_a_nul_and_not_empty)
{
    static const struct {
        const char *key;
        size_t size;
        int code;
    } cases[] = {{"", 0, OMENDB_INVALID},      {"\0", 1, OMENDB_INVALID},
                 {"a\0b", 3, OMENDB_INVALID},  {"\xFF", 1, OMENDB_INVALID},
                 {"a\xC3", 2, OMENDB_INVALID}, {"\n", 1, OMENDB_OK},
                 {"\xC3\xA9", 2, OMENDB_OK}};
    memory_init(&memory, NULL, 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct document document;
        CHECK_EQ_INT(document_create(&memory, cases[i].key, cases[i].size, NULL, 0, &document.bytes,
                                     &document.size),
                     cases[i].code);
        release(&document);
    }
    struct document document;
    CHECK_EQ_INT(create(NULL, NULL, 0, &document), OMENDB_OK);
    CHECK(document.bytes == NULL && document.size == 0);
}

TEST(an_allocation_that_fails_is_an_error_and_leaks_nothing)
{
    static const char text[] = "{\"a\":[\"x\"],\"b\":2}";
    struct document base, document;
    memory_init(&memory, &failing_allocator, 0);
    CHECK_EQ_INT(create("k", text, sizeof text - 1, &base), OMENDB_OK);
    const uint64_t used = memory.used;
    for (int64_t after = 0; after < 2; after++) {
        atomic_store(&failing_after, after);
        CHECK_EQ_INT(create("k", text, sizeof text - 1, &document), OMENDB_NOMEM);
        CHECK(document.bytes == NULL && document.size == 0 && memory.used == used);
        atomic_store(&failing_after, after);
        CHECK_EQ_INT(document_merge(&memory, base.bytes, text, sizeof text - 1, &document.bytes,
                                    &document.size),
                     OMENDB_NOMEM);
        CHECK(document.bytes == NULL && document.size == 0 && memory.used == used);
    }
    atomic_store(&failing_after, -1);
    release(&base);
    CHECK(memory.used == 0);
}

TEST(hashes_are_part_of_the_format)
{
    static const uint8_t text[] = "The quick brown fox";
    CHECK(document_hash_name(text, 0) == UINT32_C(0x00000000));
    CHECK(document_hash_name(text, 3) == UINT32_C(0x5ff2f113));
    CHECK(document_hash_name(text, 8) == UINT32_C(0xbe3d749b));
    CHECK(document_hash_name(text, 19) == UINT32_C(0x3d201d86));
}

/* The layout, byte by byte: files have it. */
TEST(the_bytes_are_those_of_the_documented_layout)
{
    static const uint8_t expected[] = {
        64,  0,    0,    0,    1,    0,    2,    0,                     /* bytes, key, fields */
        0,   0,    0,    0,    33,   0,    0,    0,    1,    0, 3,   0, /* hash, offset, name */
        0,   0,    0,    0,    42,   0,    0,    0,    2,    0, 6,   0, /* hash, offset, name */
        'k',                                                            /* the key */
        'a', 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,            /* -2 */
        'b', 'b',  11,   0,    0,    0,    2,    0,    0,    0,         /* two texts of 11 bytes */
        2,   0,    0,    0,    'x',  'y',  1,    0,    0,    0, 'z',    /* each with its own */
        0};
    uint8_t bytes[sizeof expected];
    struct document document;
    const uint32_t a = document_hash_name((const uint8_t *)"a", 1);
    const uint32_t bb = document_hash_name((const uint8_t *)"bb", 2);
    memory_init(&memory, NULL, 0);
    memcpy(bytes, expected, sizeof bytes);
    memcpy(bytes + 8, &a, sizeof a);
    memcpy(bytes + 20, &bb, sizeof bb);
    CHECK_EQ_INT(create_of("k", "{\"bb\":[\"xy\",\"z\"],\"a\":-2}", &document), OMENDB_OK);
    CHECK_EQ_INT(document.size, sizeof bytes);
    CHECK(memcmp(document.bytes, bytes, document.size) == 0);
    release(&document);
}

/* ------------------------------------------------------------------------------------------------
 */

/* A line ends at its newline, so none may be in the JSON; the answer has none either. */
static int convert_lines(void)
{
    struct document document;
    memory_init(&memory, NULL, 0);
    while (fgets(large, sizeof large, stdin) != NULL) {
        const size_t size = strlen(large);
        if (create("k", large, size - (size > 0 && large[size - 1] == '\n'), &document) !=
            OMENDB_OK) {
            printf("refused: %s\n", omendb_errmsg());
            continue;
        }
        document_to_json(document.bytes, NULL, 0, out, sizeof out);
        printf("%s\n", out);
        release(&document);
    }
    return 0;
}

#define TESTS                                                                                      \
    a_document_holds_what_the_json_said, a_name_that_is_not_there_is_not_found,                    \
        every_beginning_of_an_object_is_refused, each_byte_changed_is_refused_or_safe_to_read,     \
        some_bytes_changed_are_refused_or_safe_to_read, what_is_wrong_with_a_document_is_told,     \
        a_name_of_256_bytes_is_refused,                                                            \
        a_document_of_too_much_or_nothing_or_an_odd_length_is_refused,                             \
        names_that_do_not_ascend_and_numbers_that_are_not_finite_are_refused,                      \
        values_compare_exactly_in_the_order_of_their_types,                                        \
        an_integer_and_a_real_that_round_to_the_same_are_told_apart,                               \
        a_merge_replaces_adds_and_removes_and_keeps_the_key,                                       \
        a_merge_of_nothing_changes_nothing_and_a_wrong_one_is_refused,                             \
        only_named_fields_are_written_and_only_what_fits,                                          \
        fields_names_keys_and_documents_have_limits, a_document_takes_a_mebibyte_at_most,          \
        no_json_outgrows_the_block_that_its_length_gives_it,                                       \
        a_key_is_utf8_without_a_nul_and_not_empty,                                                 \
        an_allocation_that_fails_is_an_error_and_leaks_nothing, hashes_are_part_of_the_format,     \
        the_bytes_are_those_of_the_documented_layout
#define TEXT_OF(...) #__VA_ARGS__
#define NAMES(...)   TEXT_OF(__VA_ARGS__)

int main(int argc, char **argv)
{
    static void (*const all[])(void) = {TESTS};
    if (argc == 2 && strcmp(argv[1], "--convert") == 0)
        return convert_lines();
    return test_run(argc, argv, all, sizeof all / sizeof all[0], NAMES(TESTS));
}
