/* test_lying_logs.c: a log whose checksums are right and whose last commit makes no sense.
 *
 * Three read logs, and each lie is told to all: who opens the database refuses it, with a sentence;
 * who checks a database in use reports it, where it can be seen without knowing what happened
 * before; and salvage tells what is lost by it, and keeps the rest. */
#include "internals.h"

#include "signing.h"
#include "support.h"
#include "test.h"

#define LIES_DIM     4
#define LIES_RECORDS 300 /* ids 0 to 299, of which prepared transactions hold 10, 11 and 20 */
#define LIES_BYTES   2048

static void lies_options(struct crash_fs *fs, omendb_options *options)
{
    omendb_options_init(options);
    options->vfs = &fs->vfs;
    options->threads = 0;
}

/* ------------------------------------------------------------------------------------------------
 * payloads */

struct lies_payload {
    uint8_t bytes[LIES_BYTES];
    size_t size;
};

static void lies_32(struct lies_payload *payload, uint32_t value)
{
    format_put32(payload->bytes + payload->size, value);
    payload->size += 4;
}

static void lies_64(struct lies_payload *payload, uint64_t value)
{
    format_put64(payload->bytes + payload->size, value);
    payload->size += 8;
}

/* Kind, bytes of the name, what stands in place of the collection, the name. */
static void lies_head(struct lies_payload *payload, uint32_t kind, const char *name, size_t length,
                      uint64_t own)
{
    lies_32(payload, kind);
    lies_32(payload, (uint32_t)length);
    lies_64(payload, own);
    memcpy(payload->bytes + payload->size, name, length);
    payload->size += (length + 7) / 8 * 8;
}

static void lies_change(struct lies_payload *payload, uint32_t kind, uint32_t count,
                        uint64_t collection)
{
    lies_32(payload, kind);
    lies_32(payload, count);
    lies_64(payload, collection);
}

static void lies_vector(struct lies_payload *payload, uint64_t value)
{
    float vector[LIES_DIM];
    support_vector(value, LIES_DIM, vector);
    memcpy(payload->bytes + payload->size, vector, sizeof vector);
    payload->size += sizeof vector;
}

static void lies_put(struct lies_payload *payload, uint64_t id)
{
    lies_change(payload, CHANGE_PUT, 1, 1);
    lies_64(payload, id);
    lies_vector(payload, id);
}

static void lies_create(struct lies_payload *payload, uint64_t collection, const char *name,
                        size_t length, uint32_t dim)
{
    const float scale = 1.0f;
    lies_change(payload, CHANGE_CREATE, 0, collection);
    lies_32(payload, dim);
    lies_32(payload, OMENDB_L2);
    lies_32(payload, OMENDB_F32);
    memcpy(payload->bytes + payload->size, &scale, sizeof scale);
    payload->size += sizeof scale;
    lies_32(payload, 16);
    lies_32(payload, 200);
    lies_32(payload, 64);
    lies_32(payload, (uint32_t)length);
    lies_64(payload, 0);
    memcpy(payload->bytes + payload->size, name, length);
    payload->size += (length + 7) / 8 * 8;
}

/* ------------------------------------------------------------------------------------------------
 * the lies */

static void lies_name_of_300_bytes(struct lies_payload *payload)
{
    char name[300];
    memset(name, 'n', sizeof name);
    lies_head(payload, CHANGE_PREPARE, name, sizeof name, 0);
}

static void lies_name_longer_than_the_record(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "0123456789012345678901234567890", 31, 0);
    format_put32(payload->bytes + 4, 200);
}

static void lies_name_without_end(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "ab\0cdefg", 8, 0);
}

static void lies_name_of_two_lines(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_SETTLE, "a\nb", 3, OMENDB_PREPARED_COMMITTED);
}

static void lies_no_name(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "", 0, 0);
    lies_64(payload, 0);
}

static void lies_changes_longer_than_the_record(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "x", 1, 1000);
    lies_put(payload, 70);
}

static void lies_changes_shorter_than_the_record(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "x", 1, 0);
    lies_64(payload, 0);
    lies_64(payload, 0);
    lies_64(payload, 0);
}

static void lies_outcome_that_is_waiting(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_SETTLE, "waits", 5, OMENDB_PREPARED_WAITING);
}

static void lies_outcome_of_no_name(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_SETTLE, "waits", 5, 5);
}

static void lies_remembered_as_forgotten(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_REMEMBER, "waits", 5, 4);
}

static void lies_settled_and_never_prepared(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_SETTLE, "never", 5, OMENDB_PREPARED_COMMITTED);
}

static void lies_settled_twice(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_SETTLE, "done", 4, OMENDB_PREPARED_COMMITTED);
}

static void lies_forgotten_while_it_waits(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_SETTLE, "waits", 5, 4);
}

static void lies_prepared_creation(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "x", 1, 40);
    lies_put(payload, 70);
    format_put32(payload->bytes + 24, CHANGE_CREATE);
}

static void lies_prepared_nothing(struct lies_payload *payload)
{
    lies_prepared_creation(payload);
    format_put32(payload->bytes + 24, 0);
}

static void lies_prepared_elsewhere(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "x", 1, 40);
    lies_put(payload, 70);
    format_put64(payload->bytes + 32, 77);
}

static void lies_prepared_many(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "x", 1, 40);
    lies_put(payload, 70);
    format_put32(payload->bytes + 28, 1000);
}

static void lies_prepared_half_a_head(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "a name of 20 letters", 20, 8);
    lies_64(payload, 0);
}

static void lies_prepared_what_is_locked(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "x", 1, 40);
    lies_put(payload, 10);
}

static void lies_prepared_no_id(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "x", 1, 40);
    lies_put(payload, OMENDB_ID_AUTO);
}

static void lies_prepared_no_vector(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "x", 1, 40);
    lies_put(payload, 70);
    memset(payload->bytes + 48, 0xff, 16);
}

static void lies_prepared_no_records(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "x", 1, 56);
    lies_change(payload, CHANGE_DELETE, 0, 1);
    lies_put(payload, 70);
}

/* The same name with other changes: of the same size, of another size; a name that is settled. */
static void lies_prepared_twice(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "waits", 5, 64);
    lies_put(payload, 70);
    lies_change(payload, CHANGE_DELETE, 1, 1);
    lies_64(payload, 71);
}

static void lies_prepared_twice_with_less(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "waits", 5, 40);
    lies_put(payload, 70);
}

static void lies_prepared_after_its_end(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "done", 4, 40);
    lies_put(payload, 70);
}

static void lies_no_id(struct lies_payload *payload)
{
    lies_put(payload, OMENDB_ID_AUTO);
    lies_64(payload, 0);
    payload->size -= 8;
    lies_put(payload, 70);
}

static void lies_no_vector(struct lies_payload *payload)
{
    lies_put(payload, 70);
    lies_put(payload, 71);
    memset(payload->bytes + 24, 0xff, 16);
}

static void lies_unknown_kind(struct lies_payload *payload)
{
    lies_put(payload, 70);
    lies_put(payload, 71);
    format_put32(payload->bytes, 9);
}

static void lies_no_kind(struct lies_payload *payload)
{
    lies_unknown_kind(payload);
    format_put32(payload->bytes, 0);
}

static void lies_half_a_head(struct lies_payload *payload)
{
    lies_change(payload, CHANGE_DELETE, 0, 1);
    lies_64(payload, 1);
}

static void lies_many(struct lies_payload *payload)
{
    lies_put(payload, 70);
    lies_put(payload, 71);
    format_put32(payload->bytes + 4, UINT32_MAX);
}

static void lies_created_with_two_lines(struct lies_payload *payload)
{
    lies_create(payload, 2, "a\nb", 3, 4);
}

static void lies_created_without_dimensions(struct lies_payload *payload)
{
    lies_create(payload, 2, "ab", 2, 0);
}

static void lies_forgotten_and_never_prepared(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_SETTLE, "never", 5, 4);
}

static void lies_dropped_while_one_waits(struct lies_payload *payload)
{
    lies_change(payload, CHANGE_DROP, 0, 1);
    lies_change(payload, CHANGE_DROP, 0, 1);
    lies_change(payload, CHANGE_DROP, 0, 1);
}

/* A collection of which nothing is known but that it was dropped. */
static void lies_put_behind_a_drop(struct lies_payload *payload)
{
    lies_change(payload, CHANGE_DROP, 0, 9);
    lies_create(payload, 9, "b", 1, 4);
    lies_change(payload, CHANGE_DELETE, 1, 9);
    lies_64(payload, 5);
    lies_put(payload, 5);
    format_put64(payload->bytes + 16 + 64 + 24 + 8, 9);
}

static void lies_created_twice(struct lies_payload *payload)
{
    lies_create(payload, 1, "other", 5, 4);
}

static void lies_created_with_an_old_number(struct lies_payload *payload)
{
    lies_create(payload, 9, "new", 3, 4);
    lies_create(payload, 5, "old", 3, 4);
}

static void lies_created_with_no_number(struct lies_payload *payload)
{
    lies_create(payload, 0, "old", 3, 4);
}

static void lies_created_with_half_a_character(struct lies_payload *payload)
{
    lies_create(payload, 2, "a\xe2\x82", 3, 4);
}

/* `count` records from 70 on, each with the key "k"; `said`: bytes of all documents. */
static void lies_put_documents(struct lies_payload *payload, uint32_t count, uint64_t said)
{
    static const uint8_t document[16] = {16, 0, 0, 0, 1, 0, 0, 0, 'k'};
    lies_change(payload, CHANGE_PUT_DOCUMENTS, count, 1);
    for (uint64_t i = 0; i < count; i++)
        lies_64(payload, 70 + i);
    for (uint64_t i = 0; i < count; i++)
        lies_vector(payload, 70 + i);
    lies_64(payload, said);
    for (uint32_t i = 0; i < count + count % 2; i++)
        lies_32(payload, i < count ? sizeof document : 0);
    for (uint32_t i = 0; i < count; i++, payload->size += sizeof document)
        memcpy(payload->bytes + payload->size, document, sizeof document);
}

static void lies_documents_of_other_sizes(struct lies_payload *payload)
{
    lies_put_documents(payload, 2, 32);
    format_put32(payload->bytes + payload->size - 36, 0);
}

static void lies_document_that_is_none(struct lies_payload *payload)
{
    lies_put_documents(payload, 1, 16);
    payload->bytes[payload->size - 8] = 0xff;
}

static void lies_documents_longer_than_the_record(struct lies_payload *payload)
{
    lies_put_documents(payload, 1, 1000);
}

static void lies_documents_of_endless_size(struct lies_payload *payload)
{
    lies_put_documents(payload, 1, UINT64_MAX - 7);
}

/* What follows them would begin at no multiple of 8. */
static void lies_documents_of_an_odd_size(struct lies_payload *payload)
{
    lies_put_documents(payload, 1, 20);
    payload->size += 4;
    lies_put(payload, 71);
    payload->size += 4;
}

static void lies_two_records_of_one_key(struct lies_payload *payload)
{
    lies_put_documents(payload, 2, 32);
}

static void lies_prepared_document_that_is_none(struct lies_payload *payload)
{
    lies_head(payload, CHANGE_PREPARE, "x", 1, 72);
    lies_document_that_is_none(payload);
}

static void lies_unknown_type(struct lies_payload *payload)
{
    lies_put(payload, 70);
    lies_put(payload, 71);
}

struct lie {
    const char *name;
    void (*build)(struct lies_payload *payload);
    int opened; /* the code of opening, and a part of its sentence */
    const char *refused;
    const char *checked; /* a part of check's only line; NULL: nothing to be seen */
    const char *told;    /* a part of salvage's only line; NULL: nothing is lost */
};

#define LIES_CUT "cannot be read from byte 0 of its payload on"
#define LIES_PART                                                                                  \
    "the changes of the prepared transaction \"x\" cannot be read from byte 0 of 40 on"

static const struct lie lies[] = {
    {"a name of 300 bytes", lies_name_of_300_bytes, OMENDB_CORRUPT, "has a name of no use",
     "\"\" has a name of no use", LIES_CUT},
    {"a name longer than the record", lies_name_longer_than_the_record, OMENDB_CORRUPT,
     "has a name of no use", "has a name of no use", LIES_CUT},
    {"a name with a NUL", lies_name_without_end, OMENDB_CORRUPT, "\"ab\" has a name of no use",
     "\"ab\" has a name of no use", LIES_CUT},
    {"a name of two lines", lies_name_of_two_lines, OMENDB_CORRUPT, "has a name of no use",
     "has a name of no use", LIES_CUT},
    {"no name", lies_no_name, OMENDB_CORRUPT, "has a name of no use", "has a name of no use",
     LIES_CUT},
    {"changes longer than the record", lies_changes_longer_than_the_record, OMENDB_CORRUPT,
     "\"x\" is longer than its record", "\"x\" is longer than its record", LIES_CUT},
    {"changes shorter than the record", lies_changes_shorter_than_the_record, OMENDB_CORRUPT,
     "byte 0 of the payload makes no sense", "\"x\" is shorter than its record",
     "cannot be read from byte 24 of"},
    {"the outcome that it waits", lies_outcome_that_is_waiting, OMENDB_CORRUPT,
     "has an unknown outcome", "has an unknown outcome", LIES_CUT},
    {"outcome 5", lies_outcome_of_no_name, OMENDB_CORRUPT, "has an unknown outcome",
     "has an unknown outcome", LIES_CUT},
    {"it is remembered that it is forgotten", lies_remembered_as_forgotten, OMENDB_CORRUPT,
     "has an unknown outcome", "has an unknown outcome", LIES_CUT},
    {"settled and never prepared", lies_settled_and_never_prepared, OMENDB_CORRUPT,
     "\"never\" is settled but was never prepared", NULL,
     "\"never\" was committed, but its changes are lost"},
    {"settled twice", lies_settled_twice, OMENDB_CORRUPT, "\"done\" is settled twice", NULL,
     "\"done\" was committed, but its changes are lost"},
    {
        "forgotten while it waits",
        lies_forgotten_while_it_waits,
        OMENDB_CORRUPT,
        "\"waits\" is settled twice",
        NULL,
        "\"waits\" is forgotten, but what became of it is lost",
    },
    {"a creation that is prepared", lies_prepared_creation, OMENDB_CORRUPT, "commit 7: byte",
     "\"x\" has a change of an unknown kind", LIES_PART},
    {"nothing that is prepared", lies_prepared_nothing, OMENDB_CORRUPT, "commit 7: byte",
     "\"x\" has a change of an unknown kind", LIES_PART},
    {"prepared for another database", lies_prepared_elsewhere, OMENDB_CORRUPT, "commit 7: byte",
     NULL, "or are of a collection of which nothing is known"},
    {"more prepared than there is", lies_prepared_many, OMENDB_CORRUPT, "commit 7: byte",
     "\"x\" has a change that is longer than all of them", LIES_PART},
    {"half a change that is prepared", lies_prepared_half_a_head, OMENDB_CORRUPT, "commit 7: byte",
     "has a change of an unknown kind", "cannot be read from byte 0 of 8 on"},
    {"a locked record is prepared", lies_prepared_what_is_locked, OMENDB_CORRUPT,
     "\"x\" changes a record twice, or one that another has locked", NULL,
     "\"waits\" changes a record that one prepared later changes, too"},
    {"no id is prepared", lies_prepared_no_id, OMENDB_CORRUPT, "commit 7: byte", NULL, LIES_PART},
    {"no vector is prepared", lies_prepared_no_vector, OMENDB_OK, "", NULL, LIES_PART},
    {
        "a change of no records is prepared",
        lies_prepared_no_records,
        OMENDB_OK,
        "",
        NULL,
        NULL,
    },
    {"a name is prepared twice", lies_prepared_twice, OMENDB_OK, "", NULL,
     "a second transaction is prepared as \"waits\""},
    {"a name is prepared twice, with less", lies_prepared_twice_with_less, OMENDB_OK, "", NULL,
     "a second transaction is prepared as \"waits\""},
    {"prepared after its end", lies_prepared_after_its_end, OMENDB_OK, "", NULL, NULL},
    {"no id is put", lies_no_id, OMENDB_CORRUPT, "commit 7: byte", NULL,
     "what is stored for id 18446744073709551615 is no record"},
    {"no vector is put", lies_no_vector, OMENDB_OK, "", NULL,
     "what is stored for id 70 is no record of \"a\""},
    {"an unknown kind", lies_unknown_kind, OMENDB_CORRUPT, "commit 7: byte", NULL, LIES_CUT},
    {"no kind", lies_no_kind, OMENDB_CORRUPT, "commit 7: byte", NULL, LIES_CUT},
    {"half a change", lies_half_a_head, OMENDB_CORRUPT, "commit 7: byte", NULL,
     "cannot be read from byte 16 of"},
    {"more records than there are", lies_many, OMENDB_CORRUPT, "commit 7: byte", NULL, LIES_CUT},
    {"a collection of two lines", lies_created_with_two_lines, OMENDB_CORRUPT, "commit 7: byte",
     NULL, "the name of collection number 2 is lost"},
    {"a collection without dimensions", lies_created_without_dimensions, OMENDB_CORRUPT,
     "commit 7: byte", NULL, LIES_CUT},
    {"forgotten and never prepared", lies_forgotten_and_never_prepared, OMENDB_CORRUPT,
     "\"never\" is settled but was never prepared", NULL, NULL},
    {"dropped while one waits", lies_dropped_while_one_waits, OMENDB_CORRUPT, "commit 7: byte",
     NULL, NULL},
    {"a put behind a drop", lies_put_behind_a_drop, OMENDB_CORRUPT, "commit 7: byte", NULL,
     "cannot be read from byte 104 of its payload on"},
    {"a collection that is created twice", lies_created_twice, OMENDB_CORRUPT, "commit 7: byte",
     NULL, NULL},
    {"a collection of an old number", lies_created_with_an_old_number, OMENDB_OK, "", NULL, NULL},
    {"a collection of no number", lies_created_with_no_number, OMENDB_CORRUPT, "commit 7: byte",
     NULL, NULL},
    {"a name with half a character", lies_created_with_half_a_character, OMENDB_CORRUPT,
     "commit 7: byte", NULL, "the name of collection number 2 is lost"},
    {"documents of other sizes", lies_documents_of_other_sizes, OMENDB_CORRUPT, "commit 7: byte",
     NULL, "keys and metadata of 2 records of \"a\" are damaged"},
    {"a document that is none", lies_document_that_is_none, OMENDB_CORRUPT, "commit 7: byte", NULL,
     "keys and metadata of 1 records of \"a\" are damaged"},
    {"documents longer than the record", lies_documents_longer_than_the_record, OMENDB_CORRUPT,
     "commit 7: byte", NULL, LIES_CUT},
    {"documents of endless size", lies_documents_of_endless_size, OMENDB_CORRUPT, "commit 7: byte",
     NULL, LIES_CUT},
    {"documents of an odd size", lies_documents_of_an_odd_size, OMENDB_CORRUPT, "commit 7: byte",
     NULL, LIES_CUT},
    {"two records of one key", lies_two_records_of_one_key, OMENDB_OK, "", NULL,
     "ids 70 and 71 have the same key \"k\""},
    {"a prepared document that is none", lies_prepared_document_that_is_none, OMENDB_CORRUPT,
     "commit 7: byte", NULL,
     "the changes of the prepared transaction \"x\" cannot be read from byte 0 of 72 on"},
    {"an unknown type", lies_unknown_type, OMENDB_FORMAT, "has type 2; a later version", NULL,
     "has type 2, which this library does not know"}};

#define LIES (sizeof lies / sizeof lies[0])

/* ------------------------------------------------------------------------------------------------
 * the database */

struct lies_world {
    struct crash_fs *fs;
    omendb *db;
    omendb_collection *a;
};

static void lies_prepare(struct lies_world *world, const char *name, uint64_t put, uint64_t deleted)
{
    omendb_txn *txn = NULL;
    support_must(omendb_txn_begin(world->db, OMENDB_READ_WRITE, &txn));
    support_must(support_put(world->a, txn, put, put, LIES_DIM));
    if (deleted != 0)
        support_must(omendb_delete(world->a, txn, deleted));
    support_must(omendb_txn_prepare(txn, name));
}

/* A commit, the seventh, whose payload has `size` bytes. */
static void lies_last_commit(struct lies_world *world, size_t size)
{
    omendb_txn *txn = NULL;
    support_must(omendb_txn_begin(world->db, OMENDB_READ_WRITE, &txn));
    for (uint64_t i = 0; i < (size - 24) / 8 - (size > 24 ? 2 : 0); i++)
        support_must(omendb_delete(world->a, txn, 30 + i));
    support_must(omendb_txn_prepare(txn, "x"));
}

static void lies_begin(struct lies_world *world, size_t size)
{
    float vectors[LIES_RECORDS * LIES_DIM];
    omendb_options options;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    world->fs = crash_fs_create(0);
    schema.dim = LIES_DIM;
    lies_options(world->fs, &options);
    for (uint64_t id = 0; id < LIES_RECORDS; id++)
        support_vector(1000 + id, LIES_DIM, vectors + id * LIES_DIM);
    support_must(omendb_open("/db", &options, &world->db));
    support_must(omendb_collection_create(world->db, "a", &schema, &world->a)); /* 1 */
    support_must(
        omendb_add_batch(world->a, NULL, LIES_RECORDS, NULL, vectors, OMENDB_F32, NULL)); /* 2 */
    lies_prepare(world, "waits", 10, 11);                                                 /* 3 */
    lies_prepare(world, "done", 20, 0);                                                   /* 4 */
    support_must(omendb_commit_prepared(world->db, "done"));                              /* 5 */
    support_must(support_put(world->a, NULL, 0, 1000, LIES_DIM));                         /* 6 */
    lies_last_commit(world, size);
}

/* The disk stays. */
static void lies_end(struct lies_world *world)
{
    omendb_collection_close(world->a);
    support_must(omendb_close(world->db));
}

static uint8_t *lies_last_record(struct crash_fs *fs)
{
    struct crash_inode *log = signed_file(fs, "wal-", 0);
    uint8_t *last = NULL;
    for (uint64_t at = FORMAT_HEADER_BYTES; at + FORMAT_RECORD_BYTES < log->size;) {
        const uint32_t payload = format_get32(log->data + at);
        if (format_get64(log->data + at + FORMAT_RECORD_LOG_ID) == 0)
            break;
        last = log->data + at;
        at += FORMAT_RECORD_BYTES + format_align(payload, FORMAT_RECORD_ALIGN);
    }
    return last;
}

/* Tells the lie in place of the last commit. 1 where it takes as many bytes. */
static int lies_tell(struct crash_fs *fs, const struct lie *lie, const struct lies_payload *payload)
{
    uint8_t *record = lies_last_record(fs);
    if (record == NULL || format_get32(record) != payload->size ||
        format_get64(record + FORMAT_RECORD_SEQUENCE) != 7)
        return 0;
    memcpy(record + FORMAT_RECORD_BYTES, payload->bytes, payload->size);
    if (lie->build == lies_unknown_type)
        format_put32(record + FORMAT_RECORD_TYPE, 2);
    signed_record(record);
    return 1;
}

static int lies_complain(const struct lie *lie, const char *what)
{
    fprintf(stderr, "    %s: %s: %s\n", lie->name, what, omendb_errmsg());
    return 0;
}

static int lies_are_reported(const struct lie *lie, const struct support_report *report)
{
    return report->lines == (report->wanted != NULL) && report->told == (report->wanted != NULL)
               ? 1
               : lies_complain(lie, "not told, or not alone");
}

/* ------------------------------------------------------------------------------------------------
 * those who read it */

static int lies_checked(struct lies_world *world, const struct lie *lie)
{
    struct support_report report = {lie->checked, 0, 0};
    uint64_t problems = 0;
    if (omendb_check(world->db, support_note, &report, &problems) != OMENDB_OK)
        return lies_complain(lie, "check");
    if (problems != (lie->checked != NULL))
        return lies_complain(lie, "problems");
    return lies_are_reported(lie, &report);
}

static int lies_opened(const struct crash_fs *disk, const struct lie *lie, uint32_t read_only)
{
    struct crash_fs *copy = crash_fs_copy(disk);
    omendb_options options;
    omendb *db = NULL;
    int good = 1;
    /* What a reader knows already it may meet again, after a refresh. */
    const int again = read_only && lie->build == lies_created_twice;
    const int opened = again ? OMENDB_OK : lie->opened;
    lies_options(copy, &options);
    options.read_only = read_only;
    const int status = omendb_open("/db", &options, &db);
    if (status != opened || (db != NULL) != (opened == OMENDB_OK))
        good = lies_complain(lie, "opening");
    if (good && status != OMENDB_OK && strstr(omendb_errmsg(), lie->refused) == NULL)
        good = lies_complain(lie, "the sentence of opening");
    if (omendb_close(db) != OMENDB_OK)
        good = lies_complain(lie, "closing");
    crash_fs_destroy(copy);
    return good;
}

static uint64_t lies_records(const struct lie *lie)
{
    return lie->build == lies_dropped_while_one_waits ? 0 : LIES_RECORDS;
}

static int lies_salvaged(const struct crash_fs *disk, const struct lie *lie)
{
    struct crash_fs *copy = crash_fs_copy(disk);
    struct support_report report = {lie->told, 0, 0};
    omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
    omendb_options options;
    omendb *db = NULL;
    int good = 1;
    lies_options(copy, &options);
    if (omendb_salvage("/db", "/new", &options, support_note, &report, &result) != OMENDB_OK ||
        omendb_open("/new", &options, &db) != OMENDB_OK || support_check(db) != OMENDB_OK)
        good = lies_complain(lie, "salvage");
    good = good && lies_are_reported(lie, &report);
    if (good && result.records != lies_records(lie))
        good = lies_complain(lie, "records");
    if (omendb_close(db) != OMENDB_OK)
        good = lies_complain(lie, "closing what was salvaged");
    crash_fs_destroy(copy);
    return good;
}

static int lies_run(const struct lie *lie)
{
    struct lies_world world = {NULL, NULL, NULL};
    struct lies_payload payload = {{0}, 0};
    lie->build(&payload);
    lies_begin(&world, payload.size);
    int good = lies_tell(world.fs, lie, &payload) || lies_complain(lie, "its size");
    struct crash_fs *disk = crash_fs_copy(world.fs);
    good = lies_checked(&world, lie) && good;
    lies_end(&world);
    crash_fs_destroy(world.fs);
    good = lies_opened(disk, lie, 0) && good;
    good = lies_opened(disk, lie, 1) && good;
    good = lies_salvaged(disk, lie) && good;
    crash_fs_destroy(disk);
    return good;
}

TEST(a_lie_is_refused_when_opened_reported_by_check_and_costs_no_more_than_itself)
{
    int bad = 0;
    for (size_t i = 0; i < LIES; i++)
        bad += !lies_run(&lies[i]);
    CHECK_EQ_INT(bad, 0);
}

static int lies_count_lines(omendb *db, const char *wanted, uint64_t *told)
{
    struct support_report report = {wanted, 0, 0};
    uint64_t problems = 0, again = 0;
    const int status = omendb_check(db, support_note, &report, &problems);
    /* Without anybody to tell, they are counted. */
    if (status != OMENDB_OK || omendb_check(db, NULL, NULL, &again) != OMENDB_OK ||
        again != problems || problems != report.lines)
        return -1;
    *told = report.told;
    return (int)problems;
}

/* A transaction has one change of a kind in a collection; a log may say otherwise. */
TEST(what_adds_to_a_collection_twice_is_prepared_and_committed_as_any)
{
    enum { EACH = 40 };
    struct lies_world world = {NULL, NULL, NULL};
    struct lies_payload payload = {{0}, 0};
    const struct lie lie = {"two puts", NULL, OMENDB_OK, "", NULL, NULL};
    omendb_options options;
    uint64_t count = 0;
    lies_head(&payload, CHANGE_PREPARE, "x", 1, 2 * (16 + EACH * (8 + 4 * LIES_DIM)));
    for (uint64_t put = 0; put < 2; put++) {
        lies_change(&payload, CHANGE_PUT, EACH, 1);
        for (uint64_t i = 0; i < EACH; i++)
            lies_64(&payload, 500 + put * EACH + i);
        for (uint64_t i = 0; i < EACH; i++)
            lies_vector(&payload, 500 + put * EACH + i);
    }
    lies_begin(&world, payload.size);
    struct crash_fs *disk = crash_fs_copy(world.fs);
    lies_end(&world);
    crash_fs_destroy(world.fs);
    CHECK(lies_tell(disk, &lie, &payload));
    lies_options(disk, &options);
    CHECK_EQ_INT(omendb_open("/db", &options, &world.db), OMENDB_OK);
    CHECK_EQ_INT(omendb_commit_prepared(world.db, "x"), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(world.db, "a", NULL, &world.a), OMENDB_OK);
    CHECK_EQ_INT(omendb_count(world.a, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, LIES_RECORDS + 2 * EACH);
    CHECK_EQ_INT(support_check(world.db), OMENDB_OK);
    lies_end(&world);
    crash_fs_destroy(disk);
}

/* A record that is too short for a change, and a whole one behind it. */
TEST(a_record_without_a_change_is_no_prepared_transaction)
{
    struct lies_world world = {NULL, NULL, NULL};
    uint64_t told = 0;
    lies_begin(&world, 64);
    uint8_t *record = lies_last_record(world.fs), *second = record + FORMAT_RECORD_BYTES + 8;
    memset(record + FORMAT_RECORD_BYTES, 0, 64);
    memcpy(second, record, FORMAT_RECORD_BYTES);
    format_put32(record + FORMAT_RECORD_LENGTH, 8);
    signed_record(record);
    format_put32(second + FORMAT_RECORD_LENGTH, 16);
    format_put64(second + FORMAT_RECORD_SEQUENCE, 8);
    format_put32(second + FORMAT_RECORD_BYTES, CHANGE_DELETE);
    signed_record(second);
    struct crash_fs *disk = crash_fs_copy(world.fs);
    CHECK_EQ_INT(lies_count_lines(world.db, "", &told), 0);
    lies_end(&world);
    crash_fs_destroy(world.fs);
    const struct lie lie = {
        "half a head", lies_half_a_head, OMENDB_CORRUPT, "commit 7: byte 0", NULL, NULL};
    CHECK(lies_opened(disk, &lie, 0));
    crash_fs_destroy(disk);
}

/* The files of an open database are replaced under it. */
TEST(check_tells_that_current_names_another_manifest_or_none)
{
    struct lies_world world = {NULL, NULL, NULL};
    uint64_t told = 0;
    lies_begin(&world, 64);
    struct crash_fs *former = crash_fs_copy(world.fs);
    CHECK_EQ_INT(omendb_checkpoint(world.db), OMENDB_OK);
    struct crash_inode *current = signed_file(world.fs, "CURRENT", 0);
    struct crash_inode *old = signed_file(former, "CURRENT", 0);
    struct crash_inode *manifest = signed_file(former, "MANIFEST-", 0);
    uint8_t text[64];
    const uint64_t size = current->size;
    CHECK(size <= sizeof text && old->size <= size);
    memcpy(text, current->data, size);
    memcpy(current->data, old->data, old->size);
    current->size = old->size;
    char name[STORAGE_NAME_BYTES];
    storage_name(STORAGE_MANIFEST, format_get64(manifest->data + FORMAT_MANIFEST_NUMBER), name);
    CHECK_EQ_INT(lies_count_lines(world.db, "CURRENT names MANIFEST-", &told), 1);
    CHECK_EQ_INT(told, 1);
    crash_fs_add_file(world.fs, "/db", name, manifest->data, manifest->size);
    CHECK_EQ_INT(lies_count_lines(world.db, "CURRENT names another manifest than the one", &told),
                 1);
    CHECK_EQ_INT(told, 1);
    format_put32(signed_file(world.fs, "MANIFEST-", 0)->data, 0);
    struct crash_entry *entry = crash_find(&world.fs->directories[0], "CURRENT");
    snprintf(entry->name, sizeof entry->name, "CURRENT.old");
    CHECK_EQ_INT(lies_count_lines(world.db, "CURRENT", &told), 1);
    CHECK_EQ_INT(told, 1);
    snprintf(entry->name, sizeof entry->name, "CURRENT");
    current = signed_file(world.fs, "CURRENT", 0);
    memcpy(current->data, text, size);
    current->size = size;
    omendb_collection_close(world.a);
    (void)omendb_close(world.db);
    crash_fs_destroy(world.fs);
    crash_fs_destroy(former);
}

TEST_MAIN(a_lie_is_refused_when_opened_reported_by_check_and_costs_no_more_than_itself,
          what_adds_to_a_collection_twice_is_prepared_and_committed_as_any,
          a_record_without_a_change_is_no_prepared_transaction,
          check_tells_that_current_names_another_manifest_or_none)
