/* test_declared_fields.c: what is written is compared with what was declared, when it is given and
 * when it is committed; what is stored stays; the declaration outlives what the records outlive. */
#define _POSIX_C_SOURCE 200809L

#include "internals.h"
#include "support.h"
#include "test.h"

#define DIM 4

static omendb *db;
static omendb_collection *docs, *other;
static char path[4096];

static int open_at(uint32_t read_only)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = DIM;
    options.threads = 0;
    options.read_only = read_only;
    int status = omendb_open(path, &options, &db);
    if (status == OMENDB_OK)
        status = read_only ? omendb_collection_open(db, "docs", NULL, &docs)
                           : omendb_collection_open_or_create(db, "docs", &schema, &docs);
    if (status == OMENDB_OK)
        status = read_only ? omendb_collection_open(db, "other", NULL, &other)
                           : omendb_collection_open_or_create(db, "other", &schema, &other);
    return status;
}

static int close_all(void)
{
    omendb_collection_close(docs);
    omendb_collection_close(other);
    docs = other = NULL;
    return omendb_close(db);
}

static int open_again(void)
{
    const int status = close_all();
    return status == OMENDB_OK ? open_at(0) : status;
}

static int open_new(const char *name)
{
    snprintf(path, sizeof path, "%s", support_path(name));
    return open_at(0);
}

static int put(omendb_collection *collection, omendb_txn *txn, uint64_t id, const char *metadata)
{
    float vector[DIM];
    omendb_record record = OMENDB_RECORD_INIT;
    support_vector(3, DIM, vector);
    record.id = id;
    record.vector = vector;
    record.metadata = metadata;
    return omendb_put(collection, txn, &record, NULL);
}

static omendb_field field_of(const char *name, uint32_t type, uint32_t required)
{
    omendb_field field = OMENDB_FIELD_INIT;
    field.name = name;
    field.type = type;
    field.required = required;
    return field;
}

/* title: text, required; price: f64; count: i64 */
static int declare(int strict)
{
    const omendb_field fields[3] = {field_of("title", OMENDB_FIELD_TEXT, 1),
                                    field_of("price", OMENDB_FIELD_F64, 0),
                                    field_of("count", OMENDB_FIELD_I64, 0)};
    return omendb_collection_declare(docs, 3, fields, strict);
}

static int says(int status, int expected, const char *words)
{
    if (status == expected && strstr(omendb_errmsg(), words) != NULL)
        return 1;
    fprintf(stderr, "  %s: %s\n", omendb_strerror(status), omendb_errmsg());
    return 0;
}

TEST(types_are_compared_when_a_record_is_written)
{
    static const struct {
        uint32_t type;
        const char *good[3], *bad[6];
    } cases[] = {
        {OMENDB_FIELD_I64,
         {"{\"a\":1}", "{\"a\":null}", "{}"},
         {"{\"a\":1.5}", "{\"a\":\"1\"}", "{\"a\":true}", "{\"a\":[]}"}},
        {OMENDB_FIELD_F64, {"{\"a\":1}", "{\"a\":1.5}"}, {"{\"a\":\"1\"}", "{\"a\":false}"}},
        {OMENDB_FIELD_BOOL, {"{\"a\":true}", "{\"a\":false}"}, {"{\"a\":0}", "{\"a\":\"x\"}"}},
        {OMENDB_FIELD_TEXT, {"{\"a\":\"\"}"}, {"{\"a\":[\"x\"]}", "{\"a\":1}"}},
        {OMENDB_FIELD_TEXTS, {"{\"a\":[]}", "{\"a\":[\"x\"]}"}, {"{\"a\":\"x\"}"}},
        {OMENDB_FIELD_ANY, {"{\"a\":1}", "{\"a\":[]}", "{\"b\":true}"}, {NULL}}};
    CHECK_EQ_INT(open_new("types"), OMENDB_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const omendb_field field = field_of("a", cases[i].type, 0);
        CHECK_EQ_INT(omendb_collection_declare(docs, 1, &field, 0), OMENDB_OK);
        for (size_t g = 0; g < 3 && cases[i].good[g] != NULL; g++)
            CHECK_EQ_INT(put(docs, NULL, 1, cases[i].good[g]), OMENDB_OK);
        for (size_t b = 0; b < 6 && cases[i].bad[b] != NULL; b++)
            CHECK(says(put(docs, NULL, 1, cases[i].bad[b]), OMENDB_INVALID,
                       "field \"a\" of record 1"));
    }
    CHECK(says(put(docs, NULL, 1, NULL), OMENDB_OK, ""));
    CHECK_EQ_INT(declare(0), OMENDB_OK);
    CHECK(
        says(put(docs, NULL, 7, "{\"title\":1}"), OMENDB_INVALID,
             "field \"title\" of record 7 is an integer; collection \"docs\" declares it as text"));
    CHECK_EQ_INT(put(other, NULL, 7, "{\"title\":1}"), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(what_is_required_is_there_and_not_null)
{
    float vectors[2 * DIM];
    support_vector(1, DIM, vectors);
    support_vector(2, DIM, vectors + DIM);
    CHECK_EQ_INT(open_new("required"), OMENDB_OK);
    CHECK_EQ_INT(declare(0), OMENDB_OK);
    CHECK(
        says(put(docs, NULL, 1, NULL), OMENDB_INVALID,
             "record 1 lacks the field \"title\", which collection \"docs\" declares as required"));
    CHECK_EQ_INT(put(docs, NULL, 1, "{\"title\":null}"), OMENDB_INVALID);
    CHECK_EQ_INT(put(docs, NULL, 1, "{\"count\":1,\"zebra\":1}"), OMENDB_INVALID);
    CHECK(says(omendb_add_batch(docs, NULL, 2, NULL, vectors, OMENDB_F32, NULL), OMENDB_INVALID,
               "row 0 lacks"));
    CHECK_EQ_INT(put(docs, NULL, 1, "{\"title\":\"t\",\"zebra\":1}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(docs, NULL, 1, "{\"count\":2}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(docs, NULL, 1, "{\"title\":null}"), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_update(docs, NULL, 1, "{\"price\":\"dear\"}"), OMENDB_INVALID);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(a_strict_declaration_knows_no_other_fields)
{
    CHECK_EQ_INT(open_new("strict"), OMENDB_OK);
    CHECK_EQ_INT(declare(1), OMENDB_OK);
    CHECK_EQ_INT(put(docs, NULL, 1, "{\"title\":\"t\",\"price\":2,\"count\":3}"), OMENDB_OK);
    CHECK(says(
        put(docs, NULL, 1, "{\"title\":\"t\",\"prices\":2}"), OMENDB_INVALID,
        "record 1 has a field \"prices\"; collection \"docs\" is strict and does not declare"));
    CHECK_EQ_INT(put(docs, NULL, 1, "{\"a\":null,\"title\":\"t\"}"), OMENDB_INVALID);
    CHECK_EQ_INT(put(docs, NULL, 1, "{\"title\":\"t\",\"zebra\":null}"), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_collection_declare(docs, 0, NULL, 1), OMENDB_OK);
    CHECK_EQ_INT(put(docs, NULL, 2, "{\"title\":\"t\"}"), OMENDB_INVALID);
    CHECK_EQ_INT(put(docs, NULL, 2, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_declare(docs, 0, NULL, 0), OMENDB_OK);
    CHECK_EQ_INT(put(docs, NULL, 2, "{\"anything\":[]}"), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(what_is_stored_stays_and_is_compared_when_it_is_updated)
{
    char json[64];
    CHECK_EQ_INT(open_new("stored"), OMENDB_OK);
    CHECK_EQ_INT(put(docs, NULL, 1, "{\"count\":\"many\"}"), OMENDB_OK);
    CHECK_EQ_INT(put(docs, NULL, 2, "{\"count\":\"few\"}"), OMENDB_OK);
    CHECK_EQ_INT(declare(1), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_metadata(docs, NULL, 1, NULL, 0, json, sizeof json, NULL), OMENDB_OK);
    CHECK_EQ_STR(json, "{\"count\":\"many\"}");
    CHECK_EQ_INT(omendb_update(docs, NULL, 1, "{\"title\":\"t\"}"), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_update(docs, NULL, 1, "{\"title\":\"t\",\"count\":1}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(docs, NULL, 2), OMENDB_OK);
    CHECK_EQ_INT(support_check(db), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(a_transaction_is_compared_at_its_calls_and_at_its_commit)
{
    omendb_txn *txn;
    CHECK_EQ_INT(open_new("transaction"), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(put(docs, txn, 1, "{\"count\":\"many\"}"), OMENDB_OK);
    CHECK_EQ_INT(put(other, txn, 1, NULL), OMENDB_OK);
    CHECK_EQ_INT(declare(0), OMENDB_OK);
    CHECK_EQ_INT(put(docs, txn, 2, "{\"title\":2}"), OMENDB_INVALID);
    CHECK_EQ_INT(put(docs, txn, 2, "{\"title\":\"t\"}"), OMENDB_OK);
    CHECK(says(omendb_txn_commit(txn), OMENDB_INVALID, "field \"count\" of record 1 is a text"));
    CHECK_EQ_INT(omendb_get(other, NULL, 1, OMENDB_F32, NULL), OMENDB_NOTFOUND);
    CHECK_EQ_INT(omendb_get(docs, NULL, 2, OMENDB_F32, NULL), OMENDB_NOTFOUND);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(what_is_prepared_before_is_committed_all_the_same)
{
    omendb_txn *txn;
    CHECK_EQ_INT(open_new("prepared"), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(put(docs, txn, 1, "{\"title\":1}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "before"), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(put(docs, txn, 2, "{\"title\":1}"), OMENDB_OK);
    CHECK_EQ_INT(declare(1), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "after"), OMENDB_INVALID);
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    CHECK_EQ_INT(omendb_commit_prepared(db, "before"), OMENDB_OK);
    CHECK_EQ_INT(omendb_get(docs, NULL, 1, OMENDB_F32, NULL), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

/* Whether the fields are those of declare(). */
static int is_declared(int strict)
{
    static const char *const names[3] = {"count", "price", "title"};
    static const uint32_t types[3] = {OMENDB_FIELD_I64, OMENDB_FIELD_F64, OMENDB_FIELD_TEXT};
    omendb_field field = OMENDB_FIELD_INIT;
    char name[OMENDB_FIELD_MAX + 1];
    size_t count = 0;
    int found = -1, same = omendb_collection_declaration(docs, &count, &found) == OMENDB_OK &&
                           count == 3 && found == strict;
    for (size_t i = 0; i < 3 && same; i++)
        same = omendb_collection_field(docs, i, &field, name, sizeof name) == OMENDB_OK &&
               field.name == name && strcmp(name, names[i]) == 0 && field.type == types[i] &&
               field.required == (i == 2);
    return same && omendb_collection_field(docs, 3, &field, name, sizeof name) == OMENDB_DONE;
}

TEST(a_declaration_outlives_restarts_backups_and_salvage_and_reaches_readers)
{
    char copy[4096], salvaged[4096];
    omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
    CHECK_EQ_INT(open_new("kept"), OMENDB_OK);
    snprintf(copy, sizeof copy, "%s", support_path("kept-copy"));
    snprintf(salvaged, sizeof salvaged, "%s", support_path("kept-salvaged"));
    CHECK_EQ_INT(put(docs, NULL, 1, "{\"count\":\"many\"}"), OMENDB_OK);
    CHECK_EQ_INT(declare(1), OMENDB_OK);
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    CHECK(is_declared(1));
    CHECK_EQ_INT(omendb_backup(db, copy), OMENDB_OK);
    CHECK_EQ_INT(declare(0), OMENDB_OK);
    omendb *writer = db;
    omendb_collection *writer_docs = docs, *writer_other = other;
    CHECK(says(open_at(1), OMENDB_OK, ""));
    CHECK(is_declared(0));
    CHECK_EQ_INT(declare(1), OMENDB_READONLY);
    CHECK_EQ_INT(omendb_collection_declare(writer_docs, 0, NULL, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(writer), OMENDB_OK);
    CHECK_EQ_INT(omendb_refresh(db), OMENDB_OK);
    CHECK(!is_declared(0));
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    db = writer, docs = writer_docs, other = writer_other;
    CHECK_EQ_INT(declare(0), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    CHECK_EQ_INT(omendb_salvage(path, salvaged, NULL, NULL, NULL, &result), OMENDB_OK);
    CHECK_EQ_INT(result.records, 1);
    memcpy(path, copy, sizeof path);
    CHECK_EQ_INT(open_at(0), OMENDB_OK);
    CHECK(is_declared(1));
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    memcpy(path, salvaged, sizeof path);
    CHECK_EQ_INT(open_at(0), OMENDB_OK);
    CHECK(is_declared(0));
    CHECK_EQ_INT(omendb_get(docs, NULL, 1, OMENDB_F32, NULL), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(declarations_in_turn_take_no_memory)
{
    omendb_stats before = OMENDB_STATS_INIT, after = OMENDB_STATS_INIT;
    CHECK_EQ_INT(open_new("turns"), OMENDB_OK);
    for (int i = 0; i < 40; i++) {
        CHECK_EQ_INT(declare(i % 2), OMENDB_OK);
        if (i == 3)
            CHECK_EQ_INT(omendb_get_stats(db, &before), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_get_stats(db, &after), OMENDB_OK);
    CHECK(after.memory_bytes <= before.memory_bytes);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

TEST(wrong_arguments_are_refused)
{
    static omendb_field many[OMENDB_FIELDS_MAX + 1];
    static char names[OMENDB_FIELDS_MAX + 1][8];
    omendb_field fields[2] = {field_of("a", 0, 0), field_of("b", 0, 0)};
    char name[2];
    CHECK_EQ_INT(open_new("arguments"), OMENDB_OK);
    fields[1].name = "a";
    CHECK(says(omendb_collection_declare(docs, 2, fields, 0), OMENDB_INVALID,
               "\"a\" is declared twice"));
    fields[1] = field_of("b", OMENDB_FIELD_TEXTS + 1, 0);
    CHECK(says(omendb_collection_declare(docs, 2, fields, 0), OMENDB_INVALID, "\"b\" has type 6"));
    fields[1] = field_of("b", 0, 2);
    CHECK(says(omendb_collection_declare(docs, 2, fields, 0), OMENDB_INVALID, "required is 2"));
    fields[1] = field_of("", 0, 0);
    CHECK(says(omendb_collection_declare(docs, 2, fields, 0), OMENDB_INVALID, "has 0 bytes"));
    fields[1] = field_of(NULL, 0, 0);
    CHECK_EQ_INT(omendb_collection_declare(docs, 2, fields, 0), OMENDB_MISUSE);
    fields[1] = field_of("b", 0, 0);
    fields[1].struct_size = 8;
    CHECK_EQ_INT(omendb_collection_declare(docs, 2, fields, 0), OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_collection_declare(docs, 1, NULL, 0), OMENDB_MISUSE);
    CHECK(says(omendb_collection_declare(docs, 1, fields, 2), OMENDB_INVALID, "strict is 2"));
    for (size_t i = 0; i <= OMENDB_FIELDS_MAX; i++) {
        snprintf(names[i], sizeof names[i], "f%zu", i);
        many[i] = field_of(names[i], OMENDB_FIELD_I64, 0);
    }
    CHECK_EQ_INT(omendb_collection_declare(docs, OMENDB_FIELDS_MAX + 1, many, 0), OMENDB_TOOBIG);
    CHECK_EQ_INT(omendb_collection_declare(docs, OMENDB_FIELDS_MAX, many, 0), OMENDB_OK);
    CHECK_EQ_INT(put(docs, NULL, 1, "{\"f0\":1,\"f1023\":\"x\"}"), OMENDB_INVALID);
    CHECK_EQ_INT(put(docs, NULL, 1, "{\"f0\":1,\"f1023\":2}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_field(docs, 0, &fields[0], name, sizeof name), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_collection_field(docs, 0, NULL, name, sizeof name), OMENDB_MISUSE);
    CHECK_EQ_INT(open_again(), OMENDB_OK);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
}

/* Every byte of a declaration flipped, every length cut: it is refused, or it is another one whose
 * names lie inside. */
TEST(a_declaration_that_is_damaged_is_refused_or_whole)
{
    struct memory memory;
    const omendb_field fields[3] = {field_of("title", OMENDB_FIELD_TEXT, 1),
                                    field_of("price", OMENDB_FIELD_F64, 0),
                                    field_of("p", OMENDB_FIELD_I64, 0)};
    uint8_t *made, copy[64];
    size_t size, refused = 0;
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(
        declaration_create(&memory, (const uint8_t *)fields, sizeof fields[0], 3, 1, &made, &size),
        OMENDB_OK);
    CHECK_EQ_INT(size, 8 + 3 * 8 + 16);
    CHECK(memcmp(made,
                 "\60\0\0\0\3\0\1\0\40\0\0\0\1\0\1\0\41\0\0\0\5\0\2\0\46\0\0\0\5\0\4\1ppricetitle",
                 43) == 0);
    CHECK(declaration_check(made, size) == NULL);
    for (size_t cut = 0; cut < size; cut++)
        CHECK(declaration_check(made, cut) != NULL);
    for (size_t at = 0; at < size; at++) {
        for (int bit = 0; bit < 8; bit++) {
            struct declaration_breach breach;
            memcpy(copy, made, size);
            copy[at] ^= (uint8_t)(1 << bit);
            if (declaration_check(copy, size) == NULL)
                (void)declaration_compare(copy, NULL, &breach);
            else
                refused++;
        }
    }
    CHECK(refused > size * 4);
    memcpy(copy, made, size);
    copy[8 + 3 * 8] = 0; /* the name "p" */
    CHECK(declaration_check(copy, size) != NULL);
    copy[8 + 3 * 8] = 0xc0;
    CHECK(declaration_check(copy, size) != NULL);
    memory_free(&memory, made, size);
}

/* ------------------------------------------------------------------------------------------------
 * _id and _key */

/* A record as libraries stored it that did not refuse the names. */
static int put_as_before(uint64_t id, const char *json)
{
    float vector[DIM];
    uint8_t *document = NULL;
    size_t size = 0;
    struct records records;
    support_vector(3, DIM, vector);
    int status = document_create(&db->memory, NULL, 0, json, strlen(json), &document, &size);
    const struct records_given given = {
        .count = 1, .ids = &id, .vectors = vector, .documents = (const uint8_t *const *)&document};
    if (status == OMENDB_OK)
        status = records_prepare(docs->collection, CHANGE_PUT, &given, &records);
    if (status == OMENDB_OK)
        status = records_commit(&records, NULL);
    records_destroy(&records);
    memory_free(&db->memory, document, size);
    return status;
}

TEST(fields_named_as_the_id_and_the_key_are_are_refused)
{
    static const char *const refused[] = {"{\"a\":1,\"_id\":\"mongo-7\"}", "{\"_key\":null}",
                                          "{\"_\\u0069d\":3}"};
    const omendb_field fields[2] = {field_of("_id", OMENDB_FIELD_TEXT, 1),
                                    field_of("_key", OMENDB_FIELD_ANY, 0)};
    omendb_record records[2] = {OMENDB_RECORD_INIT, OMENDB_RECORD_INIT};
    const float vector[DIM] = {1};
    omendb_txn *txn;
    uint64_t count;
    CHECK_EQ_INT(open_new("reserved"), OMENDB_OK);
    for (size_t i = 0; i < 3; i++) {
        CHECK_EQ_INT(put(docs, NULL, 1, refused[i]), OMENDB_INVALID);
        CHECK(strstr(omendb_errmsg(), i == 1 ? "\"_key\"" : "\"_id\"") != NULL);
    }
    records[0].vector = records[1].vector = vector;
    records[1].metadata = refused[0];
    CHECK_EQ_INT(omendb_put_records(docs, NULL, 2, records, NULL), OMENDB_INVALID);
    CHECK(strncmp(omendb_errmsg(), "row 1: metadata: ", 17) == 0);
    CHECK_EQ_INT(omendb_add_records(docs, NULL, 2, records, NULL), OMENDB_INVALID);
    CHECK_EQ_INT(put(docs, NULL, 1, "{\"_other\":1,\"id\":2,\"_ids\":3}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(docs, NULL, 1, "{\"_key\":\"z\"}"), OMENDB_INVALID);
    CHECK(strstr(omendb_errmsg(), "\"_key\"") != NULL);
    CHECK_EQ_INT(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(put(docs, txn, 2, refused[0]), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_update(docs, txn, 1, "{\"_id\":1}"), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_update(docs, txn, 1, "{\"_id\":null,\"_other\":null}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    for (size_t i = 0; i < 2; i++) {
        CHECK_EQ_INT(omendb_collection_declare(docs, 1, &fields[i], 0), OMENDB_INVALID);
        CHECK(strstr(omendb_errmsg(), fields[i].name) != NULL);
    }
    CHECK_EQ_INT(omendb_count(docs, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 1);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    support_remove(path);
}

TEST(records_that_have_such_fields_already_are_read_and_updated)
{
    char json[128], saved[sizeof path];
    CHECK_EQ_INT(open_new("before"), OMENDB_OK);
    CHECK_EQ_INT(put_as_before(1, "{\"_id\":\"mongo-7\",\"n\":1}"), OMENDB_OK);
    CHECK_EQ_INT(open_again(), OMENDB_OK); /* a checkpoint */
    CHECK_EQ_INT(put_as_before(2, "{\"_key\":[\"a\",\"b\"],\"n\":1}"), OMENDB_OK);
    snprintf(saved, sizeof saved, "%s", support_path("saved"));
    CHECK_EQ_INT(omendb_update(docs, NULL, 1, "{\"n\":2}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(docs, NULL, 2, "{\"n\":2,\"_key\":[\"a\",\"b\"]}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(docs, NULL, 2, "{\"_key\":[\"a\"]}"), OMENDB_INVALID);
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    CHECK_EQ_INT(omendb_salvage(path, saved, NULL, NULL, NULL, NULL), OMENDB_OK);
    support_remove(path);
    memcpy(path, saved, sizeof path);
    CHECK_EQ_INT(open_at(0), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_metadata(docs, NULL, 1, NULL, 0, json, sizeof json, NULL), OMENDB_OK);
    CHECK_EQ_STR(json, "{\"_id\":\"mongo-7\",\"n\":2}");
    CHECK_EQ_INT(omendb_update(docs, NULL, 1, "{\"_id\":null}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_metadata(docs, NULL, 2, NULL, 0, json, sizeof json, NULL), OMENDB_OK);
    CHECK_EQ_STR(json, "{\"_key\":[\"a\",\"b\"],\"n\":2}");
    CHECK_EQ_INT(close_all(), OMENDB_OK);
    support_remove(path);
}

TEST_MAIN(types_are_compared_when_a_record_is_written, what_is_required_is_there_and_not_null,
          a_strict_declaration_knows_no_other_fields,
          what_is_stored_stays_and_is_compared_when_it_is_updated,
          a_transaction_is_compared_at_its_calls_and_at_its_commit,
          what_is_prepared_before_is_committed_all_the_same,
          a_declaration_outlives_restarts_backups_and_salvage_and_reaches_readers,
          declarations_in_turn_take_no_memory, wrong_arguments_are_refused,
          a_declaration_that_is_damaged_is_refused_or_whole,
          fields_named_as_the_id_and_the_key_are_are_refused,
          records_that_have_such_fields_already_are_read_and_updated)
