/* test_own_changes.c: cursors over a transaction's own changes, and payloads of the log that make
 * no sense: what is shown follows the changes, what is refused changes nothing. */
#include "internals.h"

#include <pthread.h>

#include "failing.h"
#include "support.h"
#include "test.h"

#define OWN_DIM 4

static struct {
    omendb *db;
    omendb_collection *docs;
} own;

static int own_begin(void)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    memset(&own, 0, sizeof own);
    atomic_store(&failing_after, -1);
    options.threads = 0;
    options.allocator = &failing_allocator;
    schema.dim = OWN_DIM;
    int status = omendb_open(":memory:", &options, &own.db);
    if (status == OMENDB_OK)
        status = omendb_collection_create(own.db, "docs", &schema, &own.docs);
    for (uint64_t id = 0; id < 10 && status == OMENDB_OK; id++)
        status = support_put(own.docs, NULL, id, id, OWN_DIM);
    return status;
}

static int own_end(void)
{
    omendb_collection_close(own.docs);
    return omendb_close(own.db);
}

static uint64_t own_count(void)
{
    uint64_t count = 0;
    return omendb_count(own.docs, NULL, &count) == OMENDB_OK ? count : UINT64_MAX;
}

/* ------------------------------------------------------------------------------------------------
 * cursors */

TEST(a_cursor_shows_each_record_once_whatever_the_transaction_put_over_it)
{
    float vector[OWN_DIM], expected[OWN_DIM];
    omendb_txn *txn = NULL;
    omendb_rows *rows = NULL;
    uint64_t id = 0, next = 0;
    CHECK_EQ_INT(own_begin(), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(own.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(support_put(own.docs, txn, 3, 103, OWN_DIM), OMENDB_OK);
    CHECK_EQ_INT(support_put(own.docs, txn, 10, 110, OWN_DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(own.docs, txn, 0, 100, &rows), OMENDB_OK);
    while (omendb_rows_next(rows, &id, OMENDB_F32, vector) == OMENDB_OK) {
        CHECK_EQ_INT(id, next++);
        support_vector(id == 3 || id == 10 ? id + 100 : id, OWN_DIM, expected);
        CHECK(memcmp(vector, expected, sizeof vector) == 0);
    }
    CHECK_EQ_INT(next, 11);
    omendb_rows_close(rows);
    omendb_txn_rollback(txn);
    CHECK_EQ_INT(own_end(), OMENDB_OK);
}

TEST(a_cursor_tells_of_a_record_that_its_transaction_deleted_since)
{
    float vector[OWN_DIM];
    omendb_txn *txn = NULL;
    omendb_rows *rows = NULL;
    uint64_t id = 0;
    CHECK_EQ_INT(own_begin(), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(own.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(support_put(own.docs, txn, 20, 1, OWN_DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(own.docs, txn, 20, 20, &rows), OMENDB_OK);
    CHECK_EQ_INT(omendb_delete(own.docs, txn, 20), OMENDB_OK);
    CHECK_EQ_INT(omendb_rows_next(rows, &id, OMENDB_F32, vector), OMENDB_NOTFOUND);
    CHECK(strstr(omendb_errmsg(), "id 20 was deleted by this transaction") != NULL);
    omendb_rows_close(rows);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK); /* added and deleted: no change at all */
    CHECK_EQ_INT(own_count(), 10);
    CHECK_EQ_INT(own_end(), OMENDB_OK);
}

/* The transaction lists them in the order in which they were opened, and forgets any. */
TEST(cursors_of_a_transaction_close_in_any_order)
{
    omendb_rows *rows[4] = {NULL, NULL, NULL, NULL};
    omendb_txn *txn = NULL;
    uint64_t id;
    CHECK_EQ_INT(own_begin(), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(own.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (int i = 0; i < 4; i++)
        CHECK_EQ_INT(omendb_scan(own.docs, txn, 0, 100, &rows[i]), OMENDB_OK);
    omendb_rows_close(rows[1]);
    omendb_rows_close(rows[3]);
    for (int i = 0; i < 4; i += 2)
        CHECK_EQ_INT(omendb_rows_next(rows[i], &id, OMENDB_F32, NULL), OMENDB_OK);
    omendb_txn_rollback(txn);
    for (int i = 0; i < 4; i += 2)
        CHECK_EQ_INT(omendb_rows_next(rows[i], &id, OMENDB_F32, NULL), OMENDB_MISUSE);
    omendb_rows_close(rows[0]);
    omendb_rows_close(rows[2]);
    txn_end(NULL);
    CHECK_EQ_INT(own_end(), OMENDB_OK);
}

TEST(a_cursor_of_a_type_that_there_is_not_stays_where_it_is)
{
    static const int types[] = {-1, OMENDB_B1 + 1};
    float vector[OWN_DIM];
    omendb_rows *rows = NULL;
    uint64_t id = 77;
    CHECK_EQ_INT(own_begin(), OMENDB_OK);
    CHECK_EQ_INT(omendb_scan(own.docs, NULL, 0, 100, &rows), OMENDB_OK);
    for (int i = 0; i < 2; i++)
        CHECK_EQ_INT(rows_next(rows, &id, types[i], vector), OMENDB_INVALID);
    CHECK_EQ_INT(id, 77);
    CHECK_EQ_INT(rows_next(rows, &id, OMENDB_F32, vector), OMENDB_OK);
    CHECK_EQ_INT(id, 0);
    omendb_rows_close(rows);
    CHECK_EQ_INT(own_end(), OMENDB_OK);
}

/* Of a collection, and of a transaction in an empty one. */
TEST(a_cursor_that_lacks_memory_is_none)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *empty = NULL;
    omendb_txn *txn = NULL;
    CHECK_EQ_INT(own_begin(), OMENDB_OK);
    schema.dim = OWN_DIM;
    CHECK_EQ_INT(omendb_collection_create(own.db, "empty", &schema, &empty), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(own.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (uint64_t id = 0; id < 5; id++)
        CHECK_EQ_INT(support_put(empty, txn, id, id, OWN_DIM), OMENDB_OK);
    for (int of_own = 0; of_own < 2; of_own++) {
        int64_t after = 0;
        for (int code = OMENDB_NOMEM; code != OMENDB_OK; after++) {
            omendb_rows *rows = NULL;
            const uint64_t used = atomic_load(&own.db->memory.used);
            atomic_store(&failing_after, after);
            code = of_own ? omendb_scan(empty, txn, 0, 100, &rows)
                          : omendb_scan(own.docs, NULL, 0, 100, &rows);
            atomic_store(&failing_after, -1);
            CHECK(code == OMENDB_OK || (code == OMENDB_NOMEM && rows == NULL));
            omendb_rows_close(rows);
            CHECK_EQ_INT(atomic_load(&own.db->memory.used), used);
        }
        CHECK_EQ_INT(after, 3);
    }
    omendb_txn_rollback(txn);
    omendb_collection_close(empty);
    CHECK_EQ_INT(own_end(), OMENDB_OK);
}

/* ------------------------------------------------------------------------------------------------
 * payloads of the log */

struct own_payload {
    uint64_t words[64];
    size_t size;
};

static void own_word(struct own_payload *payload, uint64_t word)
{
    payload->words[payload->size / 8] = word;
    payload->size += 8;
}

static void own_two(struct own_payload *payload, uint32_t low, uint32_t high)
{
    own_word(payload, low | (uint64_t)high << 32);
}

static void own_head(struct own_payload *payload, uint32_t kind, uint32_t count,
                     uint64_t collection)
{
    own_two(payload, kind, count);
    own_word(payload, collection);
}

static void own_create(struct own_payload *payload, uint64_t id, const char *name)
{
    const size_t length = strlen(name);
    own_head(payload, CHANGE_CREATE, 0, id);
    own_two(payload, OWN_DIM, OMENDB_L2);
    own_two(payload, OMENDB_F32, 0);
    own_two(payload, 16, 100);
    own_two(payload, 100, (uint32_t)length);
    own_word(payload, 7);
    memcpy((char *)payload->words + payload->size, name, length);
    payload->size += (length + 7) / 8 * 8;
}

static int own_replay(const struct own_payload *payload)
{
    return commit_replay(own.db, own.db->appended_commit + 1, (const uint8_t *)payload->words,
                         payload->size);
}

static int own_replay_records(const struct own_payload *payload)
{
    platform_mutex_lock(&own.db->commit_mutex);
    const int code = commit_replay_records(own.db, own.db->appended_commit + 1,
                                           (const uint8_t *)payload->words, payload->size);
    platform_mutex_unlock(&own.db->commit_mutex);
    return code;
}

TEST(a_logged_collection_of_an_impossible_name_is_corruption)
{
    struct own_payload good = {{0}, 0}, taken = {{0}, 0}, bad = {{0}, 0}, cut = {{0}, 0};
    omendb_collection *made = NULL;
    CHECK_EQ_INT(own_begin(), OMENDB_OK);
    const uint64_t id = own.docs->collection->id;
    own_create(&taken, id + 5, "docs");
    CHECK_EQ_INT(own_replay(&taken), OMENDB_CORRUPT);
    own_create(&bad, id + 5, "a\tb");
    CHECK_EQ_INT(own_replay(&bad), OMENDB_CORRUPT);
    own_create(&cut, id + 5, "a name that is cut");
    cut.size -= 8;
    CHECK_EQ_INT(own_replay(&cut), OMENDB_CORRUPT);
    own_create(&good, id + 5, "good");
    for (int64_t after = 0, code = OMENDB_NOMEM; code != OMENDB_OK; after++) {
        CHECK_EQ_INT(omendb_collection_open(own.db, "good", NULL, &made), OMENDB_NOTFOUND);
        atomic_store(&failing_after, after);
        code = own_replay(&good);
        atomic_store(&failing_after, -1);
        CHECK(code == OMENDB_OK || code == OMENDB_NOMEM);
    }
    CHECK_EQ_INT(omendb_collection_open(own.db, "good", NULL, &made), OMENDB_OK);
    omendb_collection_close(made);
    CHECK_EQ_INT(own_end(), OMENDB_OK);
}

TEST(logged_records_that_make_no_sense_are_corruption)
{
    struct own_payload twice = {{0}, 0}, both = {{0}, 0}, more = {{0}, 0};
    CHECK_EQ_INT(own_begin(), OMENDB_OK);
    const uint64_t id = own.docs->collection->id;
    own_head(&twice, CHANGE_DELETE, 2, id);
    own_word(&twice, 4);
    own_word(&twice, 4);
    CHECK_EQ_INT(own_replay(&twice), OMENDB_CORRUPT);
    /* of several the first that is bad ends it */
    both = twice;
    own_head(&both, CHANGE_DELETE, 1, id);
    own_word(&both, 5);
    CHECK_EQ_INT(own_replay_records(&both), OMENDB_CORRUPT);
    own_head(&more, CHANGE_DELETE, 9, id); /* more than there is */
    own_word(&more, 5);
    CHECK_EQ_INT(own_replay_records(&more), OMENDB_CORRUPT);
    more.size = 8;
    CHECK_EQ_INT(own_replay_records(&more), OMENDB_CORRUPT);
    CHECK_EQ_INT(own_count(), 10);
    /* ids out of order need memory to be looked at */
    struct own_payload falling = {{0}, 0};
    own_head(&falling, CHANGE_DELETE, 2, id);
    own_word(&falling, 5);
    own_word(&falling, 4);
    for (int64_t after = 0, code = OMENDB_NOMEM; code != OMENDB_OK; after++) {
        CHECK_EQ_INT(own_count(), 10);
        atomic_store(&failing_after, after);
        code = own_replay(&falling);
        atomic_store(&failing_after, -1);
        CHECK(code == OMENDB_OK || code == OMENDB_NOMEM);
    }
    CHECK_EQ_INT(own_count(), 8);
    CHECK_EQ_INT(own_end(), OMENDB_OK);
}

/* One that waits for its outcome keeps the collections that it changes. */
TEST(a_logged_drop_of_what_a_prepared_transaction_changes_is_corruption)
{
    struct own_payload drop = {{0}, 0};
    struct commit_logged logged = {.kind = CHANGE_DROP, .collection = 1};
    omendb_txn *txn = NULL;
    CHECK_EQ_INT(own_begin(), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(own.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(support_put(own.docs, txn, 3, 103, OWN_DIM), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_prepare(txn, "moved"), OMENDB_OK);
    own_head(&drop, CHANGE_DROP, 0, own.docs->collection->id);
    CHECK_EQ_INT(commit_body_bytes(&logged, 16), 0);
    CHECK_EQ_INT(own_replay(&drop), OMENDB_CORRUPT);
    CHECK_EQ_INT(own_count(), 10);
    CHECK_EQ_INT(omendb_commit_prepared(own.db, "moved"), OMENDB_OK);
    CHECK_EQ_INT(own_replay(&drop), OMENDB_OK);
    uint64_t count;
    CHECK_EQ_INT(omendb_count(own.docs, NULL, &count), OMENDB_DROPPED);
    CHECK_EQ_INT(own_end(), OMENDB_OK);
}

TEST_MAIN(a_cursor_shows_each_record_once_whatever_the_transaction_put_over_it,
          a_cursor_tells_of_a_record_that_its_transaction_deleted_since,
          cursors_of_a_transaction_close_in_any_order,
          a_cursor_of_a_type_that_there_is_not_stays_where_it_is,
          a_cursor_that_lacks_memory_is_none,
          a_logged_collection_of_an_impossible_name_is_corruption,
          logged_records_that_make_no_sense_are_corruption,
          a_logged_drop_of_what_a_prepared_transaction_changes_is_corruption)
