/* test_keys_and_metadata.c: what a record carries beside its vector: a key that leads to it, and
 * metadata that comes back as it was given; in memory, in the log, in segments, after merges, in
 * transactions and after salvage. */
#define _GNU_SOURCE
#include "support.h"
#include "test.h"

#define KEYS_DIM 4

static struct {
    char path[4352];
    omendb *db;
    omendb_collection *docs;
    omendb_options options;
} keys;

static int keys_open(void)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = KEYS_DIM;
    int status = omendb_open(keys.path, &keys.options, &keys.db);
    return status != OMENDB_OK
               ? status
               : omendb_collection_open_or_create(keys.db, "docs", &schema, &keys.docs);
}

static int keys_begin(void)
{
    memset(&keys, 0, sizeof keys);
    omendb_options_init(&keys.options);
    keys.options.threads = 0;
    snprintf(keys.path, sizeof keys.path, "%s", support_path("keys"));
    return keys_open();
}

static int keys_close(void)
{
    omendb_collection_close(keys.docs);
    return omendb_close(keys.db);
}

static int keys_end(void)
{
    int status = keys_close();
    support_remove(keys.path);
    return status;
}

static int keys_reopen(void)
{
    int status = keys_close();
    return status == OMENDB_OK ? keys_open() : status;
}

static omendb_record keys_record(uint64_t id, const char *key, const char *metadata)
{
    static float vectors[64][KEYS_DIM];
    static size_t next;
    omendb_record record = OMENDB_RECORD_INIT;
    float *vector = vectors[next++ % 64];
    support_vector(id == OMENDB_ID_AUTO ? 7 : id, KEYS_DIM, vector);
    record.id = id;
    record.vector = vector;
    record.key = key;
    record.metadata = metadata;
    return record;
}

static int keys_put(omendb_txn *txn, uint64_t id, const char *key, const char *metadata,
                    uint64_t *given)
{
    omendb_record record = keys_record(id, key, metadata);
    return omendb_put(keys.docs, txn, &record, given);
}

static int keys_add(omendb_txn *txn, uint64_t id, const char *key, const char *metadata,
                    uint64_t *given)
{
    omendb_record record = keys_record(id, key, metadata);
    return omendb_add(keys.docs, txn, &record, given);
}

/* The id that has the key; UINT64_MAX: none; UINT64_MAX - 1: an error. */
static uint64_t keys_find(omendb_txn *txn, const char *key)
{
    uint64_t id = 0;
    int status = omendb_find(keys.docs, txn, key, &id);
    return status == OMENDB_OK ? id : status == OMENDB_NOTFOUND ? UINT64_MAX : UINT64_MAX - 1;
}

static const char *keys_metadata(omendb_txn *txn, uint64_t id)
{
    static char json[4096];
    if (omendb_get_metadata(keys.docs, txn, id, NULL, 0, json, sizeof json, NULL) != OMENDB_OK)
        snprintf(json, sizeof json, "error: %s", omendb_errmsg());
    return json;
}

static const char *keys_key(omendb_txn *txn, uint64_t id)
{
    static char key[OMENDB_KEY_MAX + 1];
    if (omendb_get_key(keys.docs, txn, id, key, sizeof key, NULL) != OMENDB_OK)
        snprintf(key, sizeof key, "error: %s", omendb_errmsg());
    return key;
}

static uint64_t keys_problems(void)
{
    uint64_t problems = 0;
    return omendb_check(keys.db, NULL, NULL, &problems) == OMENDB_OK ? problems : UINT64_MAX;
}

/* ------------------------------------------------------------------------------------------------
 * one record */

TEST(a_key_leads_to_its_record_and_metadata_comes_back_in_the_order_of_names)
{
    uint64_t id = 0;
    size_t size = 0;
    char small[4] = "abc";
    const char *const some[] = {"size", "none"};
    char json[64];
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK_EQ_INT(keys_add(NULL, OMENDB_ID_AUTO, "vim",
                          "{\"size\": 12, \"section\": \"editors\", \"tags\": [\"c\", \"tui\"], "
                          "\"free\": true, \"ratio\": 0.5, \"note\": null}",
                          &id),
                 OMENDB_OK);
    CHECK_EQ_INT(id, 0);
    CHECK_EQ_INT(keys_find(NULL, "vim"), 0);
    CHECK_EQ_STR(keys_key(NULL, 0), "vim");
    CHECK_EQ_STR(keys_metadata(NULL, 0),
                 "{\"free\":true,\"note\":null,\"ratio\":0.5,\"section\":\"editors\",\"size\":12,"
                 "\"tags\":[\"c\",\"tui\"]}");
    CHECK_EQ_INT(omendb_get_metadata(keys.docs, NULL, 0, some, 2, json, sizeof json, &size),
                 OMENDB_OK);
    CHECK_EQ_STR(json, "{\"size\":12}");
    CHECK_EQ_INT(size, 11);
    CHECK_EQ_INT(omendb_get_key(keys.docs, NULL, 0, small, 3, &size), OMENDB_TOOBIG);
    CHECK_EQ_INT(size, 3);
    CHECK_EQ_STR(small, "abc");
    CHECK_EQ_INT(omendb_get_key(keys.docs, NULL, 0, small, 4, &size), OMENDB_OK);
    CHECK_EQ_STR(small, "vim");
    CHECK_EQ_INT(keys_find(NULL, "emacs"), UINT64_MAX);
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

TEST(a_record_without_key_and_metadata_has_an_empty_one_of_each)
{
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK_EQ_INT(support_put(keys.docs, NULL, 5, 5, KEYS_DIM), OMENDB_OK);
    CHECK_EQ_STR(keys_key(NULL, 5), "");
    CHECK_EQ_STR(keys_metadata(NULL, 5), "{}");
    CHECK_EQ_INT(omendb_get_key(keys.docs, NULL, 6, NULL, 0, NULL), OMENDB_NOTFOUND);
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

TEST(a_bad_key_or_bad_metadata_is_refused_with_its_place_and_stores_nothing)
{
    char longest[OMENDB_KEY_MAX + 2];
    uint64_t count = 1;
    memset(longest, 'k', sizeof longest);
    longest[OMENDB_KEY_MAX + 1] = 0;
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK(keys_add(NULL, 1, longest, NULL, NULL) != OMENDB_OK);
    CHECK_EQ_INT(keys_add(NULL, 1, "", NULL, NULL), OMENDB_INVALID);
    CHECK_EQ_INT(keys_add(NULL, 1, "\xff", NULL, NULL), OMENDB_INVALID);
    CHECK_EQ_INT(keys_add(NULL, 1, "k", "{\"a\": }", NULL), OMENDB_INVALID);
    CHECK(strstr(omendb_errmsg(), "byte 6") != NULL);
    CHECK_EQ_INT(keys_add(NULL, 1, "k", "{\"a\": {}}", NULL), OMENDB_INVALID);
    CHECK_EQ_INT(keys_add(NULL, 1, "k", "[]", NULL), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_find(keys.docs, NULL, "", NULL), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_find(keys.docs, NULL, longest, NULL), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_count(keys.docs, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 0);
    longest[OMENDB_KEY_MAX] = 0;
    CHECK_EQ_INT(keys_add(NULL, 1, longest, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_find(NULL, longest), 1);
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * no two records have one key */

/* Everything here is done four times: in a memtable, in the log, in a segment, in a merged one. */
static int keys_move(int stage)
{
    switch (stage) {
    case 0:
        return OMENDB_OK;
    case 1:
        return keys_reopen();
    case 2:
        return omendb_checkpoint(keys.db);
    default:
        return omendb_optimize(keys.db, NULL, NULL);
    }
}

TEST(a_put_by_key_alone_keeps_the_id_and_one_that_is_new_gets_the_next)
{
    for (int stage = 0; stage < 4; stage++) {
        uint64_t id = 99, count = 0;
        CHECK_EQ_INT(keys_begin(), OMENDB_OK);
        CHECK_EQ_INT(keys_put(NULL, 40, "a", "{\"n\":1}", NULL), OMENDB_OK);
        CHECK_EQ_INT(keys_move(stage), OMENDB_OK);
        CHECK_EQ_INT(keys_put(NULL, OMENDB_ID_AUTO, "a", "{\"n\":2}", &id), OMENDB_OK);
        CHECK_EQ_INT(id, 40);
        CHECK_EQ_INT(keys_put(NULL, OMENDB_ID_AUTO, "b", NULL, &id), OMENDB_OK);
        CHECK_EQ_INT(id, 41);
        CHECK_EQ_INT(keys_move(stage), OMENDB_OK);
        CHECK_EQ_STR(keys_metadata(NULL, 40), "{\"n\":2}");
        CHECK_EQ_INT(omendb_count(keys.docs, NULL, &count), OMENDB_OK);
        CHECK_EQ_INT(count, 2);
        CHECK_EQ_INT(keys_problems(), 0);
        CHECK_EQ_INT(keys_end(), OMENDB_OK);
    }
}

TEST(a_taken_key_is_exists_for_an_add_and_a_conflict_for_a_put_and_is_free_once_it_is_given_up)
{
    for (int stage = 0; stage < 4; stage++) {
        CHECK_EQ_INT(keys_begin(), OMENDB_OK);
        CHECK_EQ_INT(keys_add(NULL, 1, "a", NULL, NULL), OMENDB_OK);
        CHECK_EQ_INT(keys_move(stage), OMENDB_OK);
        CHECK_EQ_INT(keys_add(NULL, 2, "a", NULL, NULL), OMENDB_EXISTS);
        CHECK(strstr(omendb_errmsg(), "key \"a\"") != NULL);
        CHECK_EQ_INT(keys_add(NULL, OMENDB_ID_AUTO, "a", NULL, NULL), OMENDB_EXISTS);
        CHECK_EQ_INT(keys_put(NULL, 2, "a", NULL, NULL), OMENDB_CONFLICT);
        CHECK_EQ_INT(keys_put(NULL, 1, "a", NULL, NULL), OMENDB_OK);
        CHECK_EQ_INT(keys_put(NULL, 1, "b", NULL, NULL), OMENDB_OK);
        CHECK_EQ_INT(keys_move(stage), OMENDB_OK);
        CHECK_EQ_INT(keys_find(NULL, "a"), UINT64_MAX);
        CHECK_EQ_INT(keys_add(NULL, 2, "a", NULL, NULL), OMENDB_OK);
        CHECK_EQ_INT(omendb_delete_key(keys.docs, NULL, "b"), OMENDB_OK);
        CHECK_EQ_INT(omendb_delete_key(keys.docs, NULL, "b"), OMENDB_NOTFOUND);
        CHECK_EQ_INT(keys_add(NULL, 3, "b", NULL, NULL), OMENDB_OK);
        CHECK_EQ_INT(keys_move(stage), OMENDB_OK);
        CHECK_EQ_INT(keys_find(NULL, "a"), 2);
        CHECK_EQ_INT(keys_find(NULL, "b"), 3);
        CHECK_EQ_INT(keys_problems(), 0);
        CHECK_EQ_INT(keys_end(), OMENDB_OK);
    }
}

TEST(of_a_batch_all_records_are_stored_or_none_whatever_is_wrong_with_one)
{
    omendb_record three[3];
    uint64_t ids[3], count = 0;
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    three[0] = keys_record(1, "a", "{\"x\":1}");
    three[1] = keys_record(2, NULL, NULL);
    three[2] = keys_record(3, "a", NULL);
    CHECK_EQ_INT(omendb_add_records(keys.docs, NULL, 3, three, ids), OMENDB_EXISTS);
    CHECK(strstr(omendb_errmsg(), "rows 0 and 2") != NULL);
    CHECK_EQ_INT(omendb_put_records(keys.docs, NULL, 3, three, ids), OMENDB_CONFLICT);
    three[2] = keys_record(3, "b", "{\"x\":1,\"x\":2}");
    CHECK_EQ_INT(omendb_add_records(keys.docs, NULL, 3, three, ids), OMENDB_INVALID);
    CHECK(strstr(omendb_errmsg(), "row 2") != NULL);
    three[2].metadata = NULL;
    three[1].vector = NULL;
    CHECK_EQ_INT(omendb_add_records(keys.docs, NULL, 3, three, ids), OMENDB_MISUSE);
    three[1] = keys_record(OMENDB_ID_AUTO, NULL, NULL);
    CHECK_EQ_INT(omendb_add_records(keys.docs, NULL, 3, three, ids), OMENDB_INVALID);
    three[1] = keys_record(2, NULL, NULL);
    three[1].reserved = 1;
    CHECK_EQ_INT(omendb_add_records(keys.docs, NULL, 3, three, ids), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_count(keys.docs, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 0);
    three[1].reserved = 0;
    CHECK_EQ_INT(omendb_add_records(keys.docs, NULL, 3, three, ids), OMENDB_OK);
    CHECK_EQ_INT(ids[2], 3);
    CHECK_EQ_INT(keys_find(NULL, "b"), 3);
    CHECK_EQ_STR(keys_metadata(NULL, 1), "{\"x\":1}");
    CHECK_EQ_STR(keys_metadata(NULL, 2), "{}");
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

TEST(an_added_batch_names_the_row_whose_id_or_key_is_taken)
{
    omendb_record three[3];
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK_EQ_INT(keys_put(NULL, 7, "taken", NULL, NULL), OMENDB_OK);
    for (int in_transaction = 0; in_transaction < 2; in_transaction++) {
        omendb_txn *txn = NULL;
        if (in_transaction)
            CHECK_EQ_INT(omendb_txn_begin(keys.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
        three[0] = keys_record(1, "a", NULL);
        three[1] = keys_record(2, NULL, NULL);
        three[2] = keys_record(3, "taken", NULL);
        CHECK_EQ_INT(omendb_add_records(keys.docs, txn, 3, three, NULL), OMENDB_EXISTS);
        CHECK(strncmp(omendb_errmsg(), "row 2: key \"taken\" is that of record 7", 38) == 0);
        for (size_t i = 0; i < 3; i++)
            three[i].id = OMENDB_ID_AUTO;
        CHECK_EQ_INT(omendb_add_records(keys.docs, txn, 3, three, NULL), OMENDB_EXISTS);
        CHECK(strncmp(omendb_errmsg(), "row 2: key \"taken\"", 18) == 0);
        CHECK_EQ_INT(omendb_put_records(keys.docs, txn, 1, three + 1, NULL), OMENDB_OK);
        three[0].id = 5;
        three[1].id = 7;
        three[2].id = 9;
        CHECK_EQ_INT(omendb_add_records(keys.docs, txn, 3, three, NULL), OMENDB_EXISTS);
        CHECK(strncmp(omendb_errmsg(), "row 1: id 7", 11) == 0);
        omendb_txn_rollback(txn);
    }
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

TEST(of_equal_ids_in_a_put_batch_the_last_keeps_its_own_key_and_metadata)
{
    omendb_record four[4];
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    four[0] = keys_record(1, "first", "{\"x\":\"of the first\"}");
    four[1] = keys_record(2, "two", NULL);
    four[2] = keys_record(1, NULL, "{\"x\":3}");
    four[3] = keys_record(4, "four", "{\"x\":4}");
    CHECK_EQ_INT(omendb_put_records(keys.docs, NULL, 4, four, NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_find(NULL, "first"), UINT64_MAX);
    CHECK_EQ_STR(keys_metadata(NULL, 1), "{\"x\":3}");
    CHECK_EQ_INT(keys_find(NULL, "two"), 2);
    CHECK_EQ_INT(keys_find(NULL, "four"), 4);
    CHECK_EQ_STR(keys_metadata(NULL, 4), "{\"x\":4}");
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * transactions */

TEST(a_snapshot_keeps_its_keys_and_metadata_over_changes_checkpoints_and_merges)
{
    omendb_txn *snapshot = NULL;
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK_EQ_INT(keys_put(NULL, 1, "a", "{\"n\":1}", NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_put(NULL, 2, "b", NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(keys.db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    for (int stage = 0; stage < 4; stage++) {
        if (stage == 0) {
            CHECK_EQ_INT(keys_put(NULL, 1, "c", "{\"n\":2}", NULL), OMENDB_OK);
            CHECK_EQ_INT(keys_put(NULL, 3, "a", NULL, NULL), OMENDB_OK);
            CHECK_EQ_INT(omendb_delete(keys.docs, NULL, 2), OMENDB_OK);
        } else if (stage != 1) {
            CHECK_EQ_INT(keys_move(stage), OMENDB_OK);
        }
        CHECK_EQ_INT(keys_find(snapshot, "a"), 1);
        CHECK_EQ_INT(keys_find(snapshot, "b"), 2);
        CHECK_EQ_INT(keys_find(snapshot, "c"), UINT64_MAX);
        CHECK_EQ_STR(keys_metadata(snapshot, 1), "{\"n\":1}");
        CHECK_EQ_INT(keys_find(NULL, "a"), 3);
        CHECK_EQ_INT(keys_find(NULL, "b"), UINT64_MAX);
        CHECK_EQ_STR(keys_metadata(NULL, 1), "{\"n\":2}");
    }
    omendb_txn_rollback(snapshot);
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

TEST(a_transaction_sees_its_own_keys_and_can_exchange_those_of_two_records)
{
    omendb_txn *txn = NULL;
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK_EQ_INT(keys_put(NULL, 1, "a", "{\"n\":1}", NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_put(NULL, 2, "b", "{\"n\":2}", NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(keys.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(keys_put(txn, 1, "b", NULL, NULL), OMENDB_CONFLICT);
    CHECK_EQ_INT(keys_put(txn, 1, NULL, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_find(txn, "a"), UINT64_MAX);
    CHECK_EQ_INT(keys_find(NULL, "a"), 1);
    CHECK_EQ_INT(keys_put(txn, 2, "a", "{\"n\":3}", NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_put(txn, 1, "b", "{\"n\":4}", NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_find(txn, "a"), 2);
    CHECK_EQ_INT(keys_find(txn, "b"), 1);
    CHECK_EQ_INT(keys_add(txn, 9, "a", NULL, NULL), OMENDB_EXISTS);
    CHECK_EQ_INT(omendb_delete_key(keys.docs, txn, "a"), OMENDB_OK);
    CHECK_EQ_INT(keys_add(txn, 9, "a", NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(keys_reopen(), OMENDB_OK);
    CHECK_EQ_INT(keys_find(NULL, "a"), 9);
    CHECK_EQ_INT(keys_find(NULL, "b"), 1);
    CHECK_EQ_STR(keys_metadata(NULL, 1), "{\"n\":4}");
    CHECK_EQ_INT(keys_problems(), 0);
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

TEST(of_two_transactions_that_give_one_key_to_different_records_the_first_to_commit_wins)
{
    omendb_txn *first = NULL, *second = NULL;
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(keys.db, OMENDB_READ_WRITE, &first), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(keys.db, OMENDB_READ_WRITE, &second), OMENDB_OK);
    CHECK_EQ_INT(keys_add(first, 1, "a", NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_add(second, 2, "a", NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_commit(second), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_commit(first), OMENDB_CONFLICT);
    CHECK(strstr(omendb_errmsg(), "key \"a\"") != NULL);
    CHECK_EQ_INT(keys_find(NULL, "a"), 2);
    /* Also where the key was given up since. */
    CHECK_EQ_INT(omendb_txn_begin(keys.db, OMENDB_READ_WRITE, &first), OMENDB_OK);
    CHECK_EQ_INT(keys_put(NULL, 2, "b", NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_put(first, OMENDB_ID_AUTO, "a", "{\"n\":1}", NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_commit(first), OMENDB_CONFLICT);
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

TEST(a_prepared_transaction_keeps_its_keys_locked_over_reopening)
{
    omendb_txn *txn = NULL;
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK_EQ_INT(keys_put(NULL, 1, "a", "{\"n\":1}", NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(keys.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(keys_put(txn, 1, "b", "{\"n\":2}", NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "moving"), OMENDB_OK);
    for (int round = 0; round < 2; round++) {
        CHECK_EQ_INT(keys_add(NULL, 5, "b", NULL, NULL), OMENDB_BUSY);
        CHECK(strstr(omendb_errmsg(), "\"moving\"") != NULL);
        CHECK_EQ_INT(keys_put(NULL, 1, NULL, NULL, NULL), OMENDB_BUSY);
        CHECK_EQ_INT(keys_find(NULL, "b"), UINT64_MAX);
        CHECK_EQ_INT(keys_find(NULL, "a"), 1);
        CHECK_EQ_INT(keys_reopen(), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_commit_prepared(keys.db, "moving"), OMENDB_OK);
    CHECK_EQ_INT(keys_find(NULL, "b"), 1);
    CHECK_EQ_STR(keys_metadata(NULL, 1), "{\"n\":2}");
    CHECK_EQ_INT(keys_add(NULL, 5, "a", NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(keys.docs, NULL, 1), OMENDB_OK);
    CHECK_EQ_INT(keys_add(NULL, 6, "b", NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * update */

TEST(an_update_changes_the_fields_given_removes_null_ones_and_leaves_key_and_vector)
{
    for (int stage = 0; stage < 4; stage++) {
        float before[KEYS_DIM], after[KEYS_DIM];
        CHECK_EQ_INT(keys_begin(), OMENDB_OK);
        CHECK_EQ_INT(keys_put(NULL, 1, "a", "{\"x\":1,\"y\":\"z\"}", NULL), OMENDB_OK);
        CHECK_EQ_INT(omendb_get(keys.docs, NULL, 1, OMENDB_F32, before), OMENDB_OK);
        CHECK_EQ_INT(keys_move(stage), OMENDB_OK);
        CHECK_EQ_INT(omendb_update(keys.docs, NULL, 1, "{\"y\":null,\"w\":[\"t\"]}"), OMENDB_OK);
        CHECK_EQ_INT(omendb_update(keys.docs, NULL, 2, "{}"), OMENDB_NOTFOUND);
        CHECK_EQ_INT(omendb_update(keys.docs, NULL, 1, "{"), OMENDB_INVALID);
        CHECK_EQ_INT(keys_move(stage), OMENDB_OK);
        CHECK_EQ_STR(keys_metadata(NULL, 1), "{\"w\":[\"t\"],\"x\":1}");
        CHECK_EQ_INT(keys_find(NULL, "a"), 1);
        CHECK_EQ_INT(omendb_get(keys.docs, NULL, 1, OMENDB_F32, after), OMENDB_OK);
        CHECK(memcmp(before, after, sizeof before) == 0);
        CHECK_EQ_INT(keys_end(), OMENDB_OK);
    }
}

TEST(an_update_in_a_transaction_is_seen_there_and_lost_with_it)
{
    omendb_txn *txn = NULL;
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK_EQ_INT(keys_put(NULL, 1, "a", "{\"x\":1}", NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(keys.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(keys.docs, txn, 1, "{\"x\":2}"), OMENDB_OK);
    CHECK_EQ_INT(omendb_update(keys.docs, txn, 1, "{\"y\":3}"), OMENDB_OK);
    CHECK_EQ_STR(keys_metadata(txn, 1), "{\"x\":2,\"y\":3}");
    CHECK_EQ_STR(keys_metadata(NULL, 1), "{\"x\":1}");
    CHECK_EQ_INT(keys_find(txn, "a"), 1);
    omendb_txn_rollback(txn);
    CHECK_EQ_STR(keys_metadata(NULL, 1), "{\"x\":1}");
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * many */

static void keys_name(uint64_t id, char key[32], char metadata[64])
{
    snprintf(key, 32, "key-%llu", (unsigned long long)support_mix(id));
    snprintf(metadata, 64, "{\"n\":%llu,\"even\":%s}", (unsigned long long)id,
             id % 2 == 0 ? "true" : "false");
}

static int keys_fill(uint64_t first, uint64_t last)
{
    enum { KEYS_BATCH = 500 };
    static omendb_record records[KEYS_BATCH];
    static float vectors[KEYS_BATCH][KEYS_DIM];
    static char names[KEYS_BATCH][32], metadata[KEYS_BATCH][64];
    int status = OMENDB_OK;
    for (uint64_t id = first; id < last && status == OMENDB_OK;) {
        size_t count = 0;
        for (; count < KEYS_BATCH && id < last; count++, id++) {
            keys_name(id, names[count], metadata[count]);
            records[count] = keys_record(id, names[count], metadata[count]);
            support_vector(id, KEYS_DIM, vectors[count]);
            records[count].vector = vectors[count];
        }
        status = omendb_put_records(keys.docs, NULL, count, records, NULL);
    }
    return status;
}

/* How many of [0, count) are as they should be. */
static uint64_t keys_intact(uint64_t count)
{
    uint64_t intact = 0;
    for (uint64_t id = 0; id < count; id++) {
        char key[32], metadata[64], expected[64];
        keys_name(id, key, metadata);
        snprintf(expected, sizeof expected, "{\"even\":%s,\"n\":%llu}",
                 id % 2 == 0 ? "true" : "false", (unsigned long long)id);
        intact += keys_find(NULL, key) == id && strcmp(keys_metadata(NULL, id), expected) == 0 &&
                  strcmp(keys_key(NULL, id), key) == 0;
    }
    return intact;
}

TEST(many_keys_lead_to_their_records_from_memory_log_segments_and_after_merges)
{
    const uint64_t count = support_scaled(6000, 600);
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK_EQ_INT(keys_fill(0, count / 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(keys.db), OMENDB_OK);
    CHECK_EQ_INT(keys_fill(count / 3, count / 2), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(keys.db), OMENDB_OK);
    CHECK_EQ_INT(keys_fill(count / 4, count), OMENDB_OK);
    CHECK_EQ_INT(keys_intact(count), count);
    CHECK_EQ_INT(keys_reopen(), OMENDB_OK);
    CHECK_EQ_INT(keys_intact(count), count);
    CHECK_EQ_INT(omendb_optimize(keys.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_intact(count), count);
    CHECK_EQ_INT(keys_problems(), 0);
    for (uint64_t id = 0; id < count; id += 3)
        CHECK_EQ_INT(omendb_delete(keys.docs, NULL, id), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(keys.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_intact(count), count - (count + 2) / 3);
    CHECK_EQ_INT(keys_problems(), 0);
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

TEST(salvage_saves_keys_and_metadata_and_of_two_records_with_one_key_the_newer_keeps_it)
{
    char saved[4352];
    omendb_salvage_result result = OMENDB_SALVAGE_RESULT_INIT;
    const uint64_t count = support_scaled(1500, 600);
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK_EQ_INT(keys_fill(0, count), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(keys.db), OMENDB_OK);
    CHECK_EQ_INT(keys_fill(count / 2, count), OMENDB_OK);
    CHECK_EQ_INT(keys_close(), OMENDB_OK);
    snprintf(saved, sizeof saved, "%s", support_path("saved"));
    CHECK_EQ_INT(omendb_salvage(keys.path, saved, &keys.options, NULL, NULL, &result), OMENDB_OK);
    CHECK_EQ_INT(result.records, count);
    CHECK_EQ_INT(result.problems, 0);
    support_remove(keys.path);
    snprintf(keys.path, sizeof keys.path, "%s", saved);
    CHECK_EQ_INT(keys_open(), OMENDB_OK);
    CHECK_EQ_INT(keys_intact(count), count);
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

TEST(where_no_automatic_id_is_left_a_put_by_key_still_finds_its_record)
{
    omendb_txn *txn = NULL;
    uint64_t id = 0;
    CHECK_EQ_INT(keys_begin(), OMENDB_OK);
    CHECK_EQ_INT(keys_put(NULL, UINT64_MAX - 1, "last", NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(keys_put(NULL, OMENDB_ID_AUTO, "last", "{\"n\":1}", &id), OMENDB_OK);
    CHECK(id == UINT64_MAX - 1);
    CHECK_EQ_INT(keys_put(NULL, OMENDB_ID_AUTO, "next", NULL, &id), OMENDB_FULL);
    CHECK_EQ_INT(omendb_txn_begin(keys.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(keys_put(txn, OMENDB_ID_AUTO, "last", "{\"n\":2}", &id), OMENDB_OK);
    CHECK_EQ_INT(keys_put(txn, OMENDB_ID_AUTO, "next", NULL, &id), OMENDB_FULL);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_STR(keys_metadata(NULL, UINT64_MAX - 1), "{\"n\":2}");
    CHECK_EQ_INT(keys_end(), OMENDB_OK);
}

TEST_MAIN(a_key_leads_to_its_record_and_metadata_comes_back_in_the_order_of_names,
          a_record_without_key_and_metadata_has_an_empty_one_of_each,
          a_bad_key_or_bad_metadata_is_refused_with_its_place_and_stores_nothing,
          a_put_by_key_alone_keeps_the_id_and_one_that_is_new_gets_the_next,
          a_taken_key_is_exists_for_an_add_and_a_conflict_for_a_put_and_is_free_once_it_is_given_up,
          of_a_batch_all_records_are_stored_or_none_whatever_is_wrong_with_one,
          an_added_batch_names_the_row_whose_id_or_key_is_taken,
          of_equal_ids_in_a_put_batch_the_last_keeps_its_own_key_and_metadata,
          a_snapshot_keeps_its_keys_and_metadata_over_changes_checkpoints_and_merges,
          a_transaction_sees_its_own_keys_and_can_exchange_those_of_two_records,
          of_two_transactions_that_give_one_key_to_different_records_the_first_to_commit_wins,
          a_prepared_transaction_keeps_its_keys_locked_over_reopening,
          where_no_automatic_id_is_left_a_put_by_key_still_finds_its_record,
          an_update_changes_the_fields_given_removes_null_ones_and_leaves_key_and_vector,
          an_update_in_a_transaction_is_seen_there_and_lost_with_it,
          many_keys_lead_to_their_records_from_memory_log_segments_and_after_merges,
          salvage_saves_keys_and_metadata_and_of_two_records_with_one_key_the_newer_keeps_it)
