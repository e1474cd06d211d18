/* test_conditions_by_index.c: conditions on _id and _key, which indexes and maps answer, alone and
 * among others: whatever way is gone, counts, cursors, searches and deletions find exactly what the
 * records say one by one; and where few can match, no other record is asked. */
#include "internals.h"

#include "signing.h"
#include "support.h"
#include "test.h"

#define INDEXED_DIM  2
#define INDEXED_MANY 700
#define INDEXED_FEW  8    /* what a narrow condition may ask */
#define INDEXED_ROWS 8000 /* whose ids fill some blocks */

static struct {
    struct crash_fs *fs;
    omendb *db;
    omendb_collection *docs;
} indexed;

static void indexed_begin(uint32_t io)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    if (indexed.fs == NULL)
        indexed.fs = crash_fs_create(0);
    indexed.fs->recording = 0;
    options.vfs = &indexed.fs->vfs;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.io = io;
    schema.dim = INDEXED_DIM;
    schema.M = 4;
    schema.ef_construction = 16;
    support_must(omendb_open("/db", &options, &indexed.db));
    support_must(omendb_collection_open_or_create(indexed.db, "docs", &schema, &indexed.docs));
}

static void indexed_close(void)
{
    omendb_collection_close(indexed.docs);
    support_must(omendb_close(indexed.db));
}

static void indexed_end(void)
{
    indexed_close();
    crash_fs_destroy(indexed.fs);
    memset(&indexed, 0, sizeof indexed);
}

/* Of an id: so that ids that lie side by side differ by a little, and by much. */
static uint64_t indexed_id(uint64_t number)
{
    return number < 100 ? number : number * 37 + (number % 3 == 0 ? UINT64_C(1) << 63 : 0);
}

static void indexed_write(uint64_t number, uint64_t turn, char json[128])
{
    snprintf(json, 128, "{\"doc\":\"d%d\",\"size\":%d%s}", (int)(number / 4), (int)(turn % 50),
             turn % 3 == 0 ? ",\"odd\":true" : "");
}

static void indexed_put(omendb_txn *txn, uint64_t number, uint64_t turn)
{
    omendb_record record = OMENDB_RECORD_INIT;
    float vector[INDEXED_DIM];
    char key[32], json[128];
    support_vector(turn, INDEXED_DIM, vector);
    snprintf(key, sizeof key, "d%d#%d", (int)(number / 4), (int)(number % 4));
    indexed_write(number, turn, json);
    record.id = indexed_id(number);
    record.vector = vector;
    record.key = number % 7 == 0 ? NULL : key;
    record.metadata = turn % 11 == 0 ? NULL : json;
    support_must(omendb_put(indexed.docs, txn, &record, NULL));
}

static void indexed_fill(uint64_t count)
{
    for (uint64_t number = 0; number < count; number++)
        indexed_put(NULL, number, 1);
}

static void indexed_change(omendb_txn *txn, struct support_random *random)
{
    const uint64_t number = support_below(random, INDEXED_MANY), turn = support_next(random);
    char json[128];
    int status = OMENDB_OK;
    indexed_write(number + support_below(random, 2), turn, json);
    switch (support_below(random, 4)) {
    case 0:
        status = omendb_delete(indexed.docs, txn, indexed_id(number));
        break;
    case 1:
        status = omendb_update(indexed.docs, txn, indexed_id(number), json);
        break;
    default:
        indexed_put(txn, number, turn);
    }
    support_must(status == OMENDB_NOTFOUND ? OMENDB_OK : status);
}

/* ------------------------------------------------------------------------------------------------
 * conditions */

static int indexed_leaf(struct support_random *random, char *text, size_t size)
{
    const unsigned number = (unsigned)support_below(random, INDEXED_MANY + 20),
                   other = (unsigned)support_below(random, INDEXED_MANY);
    const unsigned long long id = indexed_id(number), behind = id + support_below(random, 4000);
    const unsigned doc = number / 4, chunk = number % 4;
    switch (support_below(random, 16)) {
    case 0:
        return snprintf(text, size, "_id = %llu", id);
    case 1:
        return snprintf(text, size, "_id IN (%llu, %u, %llu, 'x', 2.5)", id, other, behind);
    case 2:
        return snprintf(text, size, "_id BETWEEN %llu AND %llu", id, behind);
    case 3:
        return snprintf(text, size, "_id %s %llu", chunk < 2 ? "<" : ">=", id);
    case 4:
        return snprintf(text, size, "_id NOT BETWEEN %u AND %llu", other, behind);
    case 5:
        return snprintf(text, size, "_id <> %llu", id);
    case 6:
        return snprintf(text, size, "_id NOT IN (%llu, %u)", id, other);
    case 7:
    case 8:
        return snprintf(text, size, "_key = 'd%u#%u'", doc, chunk);
    case 9:
        return snprintf(text, size, "_key IN ('d%u#1', 'd%u#2', 7, 'd%u#%u', 'no')", doc, doc,
                        other / 4, chunk);
    case 10:
        return snprintf(text, size, "_key %s 'd%u#%u'", chunk < 2 ? "<>" : "<", doc, chunk);
    case 11:
        return snprintf(text, size, "_key LIKE 'd%u%s'", doc, chunk < 2 ? "#%" : "#1");
    case 12:
        return snprintf(text, size, "_key IS %sNULL", chunk < 2 ? "NOT " : "");
    case 13:
        return snprintf(text, size, "doc = 'd%u'", doc);
    case 14:
        return snprintf(text, size, "size < %u", number % 60);
    default:
        return snprintf(text, size, "%s", chunk == 0 ? "TRUE" : chunk == 1 ? "odd" : "NOT odd");
    }
}

/* Up to six of them, some in parentheses, some negated. */
static void indexed_text(struct support_random *random, char *text, size_t size)
{
    const uint64_t leaves = 1 + support_below(random, 2) * support_below(random, 6);
    size_t at = 0, open = 0;
    for (uint64_t i = 0; i < leaves; i++) {
        if (i != 0)
            at +=
                (size_t)snprintf(text + at, size - at, support_below(random, 2) ? " AND " : " OR ");
        if (i + 1 < leaves && support_below(random, 3) == 0) {
            at += (size_t)snprintf(text + at, size - at, "%s",
                                   support_below(random, 3) ? "(" : "NOT (");
            open++;
        }
        at += (size_t)indexed_leaf(random, text + at, size - at);
        if (open > 0 && support_below(random, 3) == 0) {
            at += (size_t)snprintf(text + at, size - at, ")");
            open--;
        }
    }
    while (open-- > 0)
        at += (size_t)snprintf(text + at, size - at, ")");
}

/* ------------------------------------------------------------------------------------------------
 * what records say */

static struct {
    uint64_t ids[INDEXED_MANY];
    size_t count;
} wanted;

static int indexed_record_matches(omendb_rows *rows, const omendb_filter *filter, uint64_t id)
{
    char key[64], json[256];
    uint8_t *document = NULL;
    size_t size = 0, key_size = 0;
    support_must(omendb_rows_key(rows, key, sizeof key, &key_size));
    support_must(omendb_rows_metadata(rows, NULL, 0, json, sizeof json, NULL));
    const int bare = strcmp(json, "{}") == 0;
    support_must(document_create(&indexed.db->memory, key_size == 0 ? NULL : key, key_size,
                                 bare ? NULL : json, bare ? 0 : strlen(json), &document, &size));
    const int matches = filter_matches(filter, id, document);
    memory_free(&indexed.db->memory, document, size);
    return matches;
}

static void indexed_ask_all(omendb_txn *txn, const omendb_filter *filter)
{
    omendb_rows *rows = NULL;
    uint64_t id;
    int status;
    wanted.count = 0;
    support_must(omendb_scan(indexed.docs, txn, 0, UINT64_MAX - 1, &rows));
    while ((status = omendb_rows_next(rows, &id, OMENDB_F32, NULL)) == OMENDB_OK) {
        if (indexed_record_matches(rows, filter, id))
            wanted.ids[wanted.count++] = id;
    }
    support_must(status == OMENDB_DONE ? OMENDB_OK : status);
    omendb_rows_close(rows);
}

static int indexed_counts(omendb_txn *txn, const omendb_filter *filter)
{
    uint64_t count = 0;
    support_must(omendb_count_matching(indexed.docs, txn, filter, NULL, NULL, &count));
    return count == wanted.count;
}

/* In the order of ids, from any of them to any. */
static int indexed_scans(omendb_txn *txn, const omendb_filter *filter, uint64_t from, uint64_t to)
{
    omendb_rows *rows = NULL;
    float vector[INDEXED_DIM];
    char json[256], same[256];
    uint64_t id;
    size_t at = 0;
    int status, good = 1;
    while (at < wanted.count && wanted.ids[at] < from)
        at++;
    support_must(omendb_scan_matching(indexed.docs, txn, filter, from, to, &rows));
    while ((status = omendb_rows_next(rows, &id, OMENDB_F32, vector)) == OMENDB_OK) {
        good &= at < wanted.count && wanted.ids[at++] == id;
        support_must(omendb_rows_metadata(rows, NULL, 0, json, sizeof json, NULL));
        support_must(omendb_get_metadata(indexed.docs, txn, id, NULL, 0, same, sizeof same, NULL));
        good &= strcmp(json, same) == 0;
    }
    support_must(status == OMENDB_DONE ? OMENDB_OK : status);
    omendb_rows_close(rows);
    return good && (at == wanted.count || wanted.ids[at] > to);
}

static int indexed_compare(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static int indexed_searches(omendb_txn *txn, const omendb_filter *filter, uint32_t exact)
{
    static uint64_t ids[INDEXED_MANY];
    float vector[INDEXED_DIM] = {0.5f, 0.25f};
    omendb_query query = OMENDB_QUERY_INIT;
    size_t found = 0;
    query.vector = vector;
    query.filter = filter;
    query.exact = exact;
    query.k = INDEXED_MANY;
    support_must(omendb_search(indexed.docs, txn, &query, ids, NULL, &found));
    qsort(ids, found, sizeof *ids, indexed_compare);
    return found == wanted.count && memcmp(ids, wanted.ids, found * sizeof *ids) == 0;
}

/* Of the newest state. */
static int indexed_deletes(const omendb_filter *filter)
{
    omendb_txn *txn = NULL;
    uint64_t deleted = 0;
    support_must(omendb_txn_begin(indexed.db, OMENDB_READ_WRITE, &txn));
    support_must(omendb_delete_matching(indexed.docs, txn, filter, NULL, NULL, &deleted));
    omendb_txn_rollback(txn);
    return deleted == wanted.count;
}

static int indexed_agrees(omendb_txn *txn, struct support_random *random, const char *text)
{
    omendb_filter *filter = NULL;
    const uint64_t from = indexed_id(support_below(random, INDEXED_MANY)),
                   to = from + support_below(random, UINT64_C(1) << 62);
    support_must(omendb_filter_compile(indexed.db, text, &filter));
    indexed_ask_all(txn, filter);
    const int counts = indexed_counts(txn, filter),
              scans = indexed_scans(txn, filter, 0, UINT64_MAX - 1) &&
                      indexed_scans(txn, filter, from, to),
              searches = indexed_searches(txn, filter, 1) && indexed_searches(txn, filter, 0),
              deletes = txn != NULL || indexed_deletes(filter);
    omendb_filter_free(filter);
    if (!counts || !scans || !searches || !deletes)
        fprintf(stderr, "    %s: %zu match; count %d, scan %d, search %d, delete %d\n", text,
                wanted.count, counts, scans, searches, deletes);
    return counts && scans && searches && deletes;
}

static int indexed_all_agree(omendb_txn *txn, struct support_random *random, int conditions)
{
    char text[1024];
    for (int i = 0; i < conditions; i++) {
        indexed_text(random, text, sizeof text);
        if (!indexed_agrees(txn, random, text))
            return 0;
    }
    return 1;
}

TEST(all_ways_find_what_the_records_say_wherever_they_are)
{
    const uint64_t turns = support_scaled_instrumented(40, 8, 4);
    struct support_random random = {support_seed(5)};
    omendb_txn *snapshot = NULL;
    indexed_begin(OMENDB_IO_PREAD);
    for (uint64_t turn = 0; turn < turns; turn++) {
        omendb_txn *txn = NULL;
        for (uint64_t i = support_below(&random, 400); i > 0; i--)
            indexed_change(NULL, &random);
        CHECK(indexed_all_agree(NULL, &random, 25));
        if (snapshot != NULL)
            CHECK(indexed_all_agree(snapshot, &random, 12));
        if (support_below(&random, 3) == 0) {
            omendb_txn_rollback(snapshot);
            snapshot = NULL;
            support_must(omendb_txn_begin(indexed.db, OMENDB_READ_ONLY, &snapshot));
        }
        support_must(omendb_txn_begin(indexed.db, OMENDB_READ_WRITE, &txn));
        for (uint64_t i = support_below(&random, 60); i > 0; i--)
            indexed_change(txn, &random);
        CHECK(indexed_all_agree(txn, &random, 12));
        omendb_txn_rollback(txn);
        if (support_below(&random, 2) == 0)
            support_must(omendb_checkpoint(indexed.db));
        if (support_below(&random, 5) == 0)
            support_must(omendb_optimize(indexed.db, NULL, NULL));
    }
    omendb_txn_rollback(snapshot);
    CHECK_EQ_INT(support_check(indexed.db), OMENDB_OK);
    indexed_end();
}

static int indexed_number_agrees(omendb_txn *txn, struct support_random *random)
{
    return indexed_agrees(txn, random, "_key = 'd1#1'") && indexed_agrees(txn, random, "_id = 5") &&
           indexed_agrees(txn, random, "_key IN ('d1#1', 'd1#2') AND size = 7") &&
           indexed_agrees(txn, random, "NOT _id = 5 AND doc = 'd1'");
}

TEST(snapshots_find_older_rows_of_a_key_and_of_an_id)
{
    struct support_random random = {3};
    omendb_txn *snapshots[3];
    indexed_begin(OMENDB_IO_PREAD);
    indexed_fill(100);
    for (uint64_t i = 0; i < 3; i++) {
        indexed_put(NULL, 5, 7 + i);
        support_must(omendb_txn_begin(indexed.db, OMENDB_READ_ONLY, &snapshots[i]));
    }
    support_must(omendb_delete(indexed.docs, NULL, 5));
    for (int turn = 0; turn < 3; turn++) {
        CHECK(indexed_number_agrees(NULL, &random) && wanted.count == 3);
        for (int i = 0; i < 3; i++)
            CHECK(indexed_number_agrees(snapshots[i], &random) && wanted.count == 3);
        support_must(turn == 0 ? omendb_checkpoint(indexed.db)
                               : omendb_optimize(indexed.db, NULL, NULL));
    }
    for (int i = 0; i < 3; i++)
        omendb_txn_rollback(snapshots[i]);
    indexed_end();
}

TEST(a_cursor_shows_what_matched_when_it_was_opened)
{
    omendb_filter *filter = NULL;
    omendb_rows *rows = NULL;
    uint64_t id, shown = 0;
    char json[256];
    indexed_begin(OMENDB_IO_PREAD);
    for (uint64_t number = 0; number < INDEXED_MANY; number++)
        indexed_put(NULL, number, 1);
    support_must(omendb_checkpoint(indexed.db));
    for (uint64_t number = 0; number < 10; number++)
        indexed_put(NULL, number, 2);
    support_must(omendb_filter_compile(indexed.db, "doc = 'd1' OR doc = 'd5'", &filter));
    support_must(omendb_scan_matching(indexed.docs, NULL, filter, 0, UINT64_MAX - 1, &rows));
    for (uint64_t number = 0; number < 16; number++)
        support_must(omendb_delete(indexed.docs, NULL, indexed_id(number)));
    for (uint64_t number = 16; number < 60; number++)
        support_must(omendb_update(indexed.docs, NULL, indexed_id(number), "{\"doc\":\"d1\"}"));
    support_must(omendb_optimize(indexed.db, NULL, NULL));
    for (uint64_t number = 4; omendb_rows_next(rows, &id, OMENDB_F32, NULL) == OMENDB_OK; shown++) {
        CHECK_EQ_INT(id, indexed_id(number));
        support_must(omendb_rows_metadata(rows, NULL, 0, json, sizeof json, NULL));
        CHECK(strstr(json, number < 10 ? "\"size\":2" : "\"size\":1") != NULL || number % 11 == 0);
        number = number == 7 ? 20 : number + 1;
    }
    CHECK_EQ_INT(shown, 8);
    omendb_rows_close(rows);
    omendb_filter_free(filter);
    indexed_end();
}

/* ------------------------------------------------------------------------------------------------
 * what is asked */

static uint64_t indexed_tested(const char *text, uint32_t exact)
{
    uint64_t ids[10];
    float vector[INDEXED_DIM] = {0.5f, 0.25f};
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_filter *filter = NULL;
    size_t found = 0;
    support_must(omendb_filter_compile(indexed.db, text, &filter));
    query.vector = vector;
    query.filter = filter;
    query.exact = exact;
    query.explain = &explain;
    support_must(omendb_search(indexed.docs, NULL, &query, ids, NULL, &found));
    omendb_filter_free(filter);
    if (found == 0 || explain.path != OMENDB_PATH_MATCHES)
        fprintf(stderr, "    %s: %zu found, path %u\n", text, found, explain.path);
    return found == 0 || explain.path != OMENDB_PATH_MATCHES ? UINT64_MAX : explain.matches_tested;
}

/* The last ones need an order of ids, which memory has not. */
static const char *const indexed_narrow[] = {
    "_key = 'd2#1'",
    "_key IN ('d2#1', 'd3#2', 'd999#9')",
    "_id = 5",
    "_id IN (5, 6, 7000)",
    "_id BETWEEN 5 AND 9",
    "_key = 'd2#1' AND size >= 0",
    "_id BETWEEN 5 AND 6 OR _key = 'd3#1'",
    "(_id = 5 OR _key = 'd3#1') AND (size > -1 OR odd)",
    "_id > 4 AND _id < 8 AND size = 1",
    "_id NOT BETWEEN 4 AND 18446744073709551614",
};
enum { NARROW = 10, NARROW_IN_MEMORY = 8 };

static int indexed_asks_few(int conditions)
{
    struct support_random random = {9};
    for (int i = 0; i < conditions; i++) {
        if (!indexed_agrees(NULL, &random, indexed_narrow[i]) ||
            indexed_tested(indexed_narrow[i], 0) > INDEXED_FEW ||
            indexed_tested(indexed_narrow[i], 1) > INDEXED_FEW)
            return 0;
    }
    return 1;
}

TEST(a_search_asks_none_but_those_that_an_index_lists)
{
    /* Rows whose ids ascend, and rows whose ids do not. */
    for (uint64_t count = 100; count <= INDEXED_MANY; count += INDEXED_MANY - 100) {
        indexed_begin(OMENDB_IO_MAP);
        indexed_fill(count);
        CHECK(indexed_asks_few(NARROW_IN_MEMORY));
        support_must(omendb_update(indexed.docs, NULL, 5, "{\"size\":1}"));
        CHECK(indexed_asks_few(NARROW_IN_MEMORY));
        support_must(omendb_checkpoint(indexed.db));
        CHECK(indexed_asks_few(NARROW));
        support_must(omendb_update(indexed.docs, NULL, 6, "{\"size\":1}"));
        CHECK(indexed_asks_few(NARROW));
        support_must(omendb_optimize(indexed.db, NULL, NULL));
        CHECK(indexed_asks_few(NARROW));
        indexed_end();
    }
}

/* ------------------------------------------------------------------------------------------------
 * what is read: the rest is damaged */

/* All whole blocks of the section but those at its beginning. */
static void indexed_damage(uint32_t type)
{
    struct crash_inode *file = signed_file(indexed.fs, "seg-", 0);
    const uint8_t *trailer = file->data + file->size - FORMAT_TRAILER_BYTES;
    const uint8_t *at = file->data + file->size / BLOCK_BYTES * BLOCK_BYTES +
                        format_get32(trailer + FORMAT_TRAILER_PARTS) * FORMAT_PART_BYTES;
    while (format_get32(at + FORMAT_SECTION_TYPE) != type)
        at += FORMAT_SECTION_BYTES;
    const uint64_t begin = format_get64(at + FORMAT_SECTION_OFFSET),
                   end = begin + format_get64(at + FORMAT_SECTION_LENGTH);
    for (uint64_t block = begin / BLOCK_BYTES + 1; (block + 1) * BLOCK_BYTES <= end; block++)
        file->data[block * BLOCK_BYTES + 7] ^= 1;
}

static int indexed_works(const char *text)
{
    omendb_filter *filter = NULL;
    omendb_rows *rows = NULL;
    omendb_txn *txn = NULL;
    uint64_t counted = 0, deleted = 0, shown = 0;
    support_must(omendb_filter_compile(indexed.db, text, &filter));
    support_must(omendb_txn_begin(indexed.db, OMENDB_READ_WRITE, &txn));
    int status = omendb_count_matching(indexed.docs, NULL, filter, NULL, NULL, &counted);
    if (status == OMENDB_OK)
        status = omendb_scan_matching(indexed.docs, NULL, filter, 0, UINT64_MAX - 1, &rows);
    while (status == OMENDB_OK &&
           (status = omendb_rows_next(rows, NULL, OMENDB_F32, NULL)) == OMENDB_OK)
        shown++;
    if (status == OMENDB_DONE)
        status = omendb_delete_matching(indexed.docs, txn, filter, NULL, NULL, &deleted);
    omendb_rows_close(rows);
    omendb_txn_rollback(txn);
    omendb_filter_free(filter);
    if (status != OMENDB_OK || counted == 0 || shown != counted || deleted != counted)
        fprintf(stderr, "    %s: %llu counted, %llu shown, %llu deleted: %s\n", text,
                (unsigned long long)counted, (unsigned long long)shown, (unsigned long long)deleted,
                omendb_errmsg());
    return status == OMENDB_OK && counted != 0 && shown == counted && deleted == counted;
}

TEST(counts_cursors_and_deletions_read_no_record_that_an_index_leaves_out)
{
    const uint64_t other = indexed_id(INDEXED_ROWS * 3 / 4 + 1);
    char json[256];
    indexed_begin(OMENDB_IO_PREAD);
    indexed_fill(INDEXED_ROWS);
    support_must(omendb_checkpoint(indexed.db));
    indexed_close();
    indexed_damage(SECTION_DOCUMENTS);
    indexed_begin(OMENDB_IO_PREAD);
    CHECK_EQ_INT(omendb_get_metadata(indexed.docs, NULL, other, NULL, 0, json, sizeof json, NULL),
                 OMENDB_CORRUPT);
    CHECK(indexed_works("doc LIKE 'd10%'"));
    CHECK(indexed_works("size = 1")); /* of so many each is asked when its turn comes */
    indexed_close();
    indexed_damage(SECTION_SORTED_IDS);
    indexed_begin(OMENDB_IO_PREAD);
    CHECK_EQ_INT(omendb_get(indexed.docs, NULL, other, OMENDB_F32, NULL), OMENDB_CORRUPT);
    for (int i = 0; i < NARROW; i++)
        CHECK(indexed_works(indexed_narrow[i]));
    CHECK(indexed_works("doc = 'd1'"));
    indexed_end();
}

TEST_MAIN(all_ways_find_what_the_records_say_wherever_they_are,
          snapshots_find_older_rows_of_a_key_and_of_an_id,
          a_cursor_shows_what_matched_when_it_was_opened,
          a_search_asks_none_but_those_that_an_index_lists,
          counts_cursors_and_deletions_read_no_record_that_an_index_leaves_out)
