/* test_filtered_records.c: filters over stored metadata. Whatever a record's fields are and
 * wherever it lies, a filter finds it by columns exactly where it matches by its document: in
 * memory, in segments, after merges, in transactions; in searches, counts and deletions. */
#define _GNU_SOURCE
#include "internals.h"

#include "support.h"
#include "test.h"

#define FILTERED_DIM  4
#define FILTERED_MANY 3000

static struct {
    char path[4352];
    omendb *db;
    omendb_collection *docs;
} filtered;

static int filtered_begin(void)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    memset(&filtered, 0, sizeof filtered);
    snprintf(filtered.path, sizeof filtered.path, "%s", support_path("filtered"));
    options.threads = 0;
    schema.dim = FILTERED_DIM;
    int status = omendb_open(filtered.path, &options, &filtered.db);
    return status != OMENDB_OK
               ? status
               : omendb_collection_create(filtered.db, "docs", &schema, &filtered.docs);
}

static int filtered_end(void)
{
    omendb_collection_close(filtered.docs);
    int status = omendb_close(filtered.db);
    support_remove(filtered.path);
    return status;
}

/* Fields of all types, some of more than one, some rare, arrays of none to three texts. */
static void filtered_metadata(uint64_t id, char json[512])
{
    struct support_random random = {id};
    static const char *const sections[] = {"editors", "games", "libs", "net", "web"};
    static const char *const tags[] = {"c", "rust", "go", "tui", "gui"};
    size_t at = (size_t)snprintf(json, 512, "{\"section\":\"%s\",\"size\":%llu",
                                 sections[support_below(&random, 5)],
                                 (unsigned long long)support_below(&random, 1000));
    if (id % 3 == 0)
        at += (size_t)snprintf(json + at, 512 - at, ",\"essential\":%s", id % 2 ? "true" : "false");
    if (id % 5 == 0)
        at += (size_t)snprintf(json + at, 512 - at, ",\"mixed\":%s",
                               id % 4 == 0   ? "\"text\""
                               : id % 4 == 1 ? "1.5"
                               : id % 4 == 2 ? "null"
                                             : "7");
    if (id % 97 == 0)
        at += (size_t)snprintf(json + at, 512 - at, ",\"rare\":%llu", (unsigned long long)id);
    if (id % 7 != 0) {
        at += (size_t)snprintf(json + at, 512 - at, ",\"tag\":[");
        for (uint64_t i = id % 4; i > 0; i--)
            at += (size_t)snprintf(json + at, 512 - at, "\"%s\"%s", tags[support_below(&random, 5)],
                                   i > 1 ? "," : "");
        at += (size_t)snprintf(json + at, 512 - at, "]");
    }
    snprintf(json + at, 512 - at, ",\"unique\":\"u%llu\"}", (unsigned long long)support_mix(id));
}

static int filtered_fill(uint64_t first, uint64_t last)
{
    int status = OMENDB_OK;
    for (uint64_t id = first; id < last && status == OMENDB_OK; id++) {
        static char json[512], key[32];
        float vector[FILTERED_DIM];
        omendb_record record = OMENDB_RECORD_INIT;
        support_vector(id, FILTERED_DIM, vector);
        filtered_metadata(id, json);
        snprintf(key, sizeof key, "key %llu", (unsigned long long)id);
        record.id = id;
        record.vector = vector;
        record.metadata = id % 50 == 49 ? NULL : json;
        record.key = id % 2 ? key : NULL;
        status = omendb_put(filtered.docs, NULL, &record, NULL);
    }
    return status;
}

static const char *const filtered_texts[] = {
    "section = 'editors'",
    "section <> 'editors'",
    "NOT section IN ('editors', 'web')",
    "size < 100",
    "size >= 100 AND size <= 200.5",
    "size BETWEEN 10 AND 20",
    "size NOT BETWEEN 10 AND 990",
    "essential",
    "NOT essential",
    "essential IS NULL",
    "essential IS NOT TRUE",
    "mixed > 3",
    "mixed < 3",
    "mixed = 'text' OR mixed = 7",
    "NOT mixed = 7",
    "rare IS NOT NULL",
    "rare > 500 AND size < 500",
    "tag = 'c'",
    "NOT tag = 'c'",
    "tag IN ('c', 'rust')",
    "tag NOT IN ('c', 'rust')",
    "tag IS NULL",
    "tag CONTAINS 'go' AND tag CONTAINS 'c'",
    "tag LIKE 'g%'",
    "unique LIKE 'u1%'",
    "unique LIKE 'u12%' OR unique LIKE 'u9%'",
    "none = 1",
    "none IS NULL",
    "NOT none = 1",
    "_id < 100 AND section = 'net'",
    "_key = 'key 77'",
    "_key IS NULL AND size < 300",
    "section = 'libs' AND (size < 50 OR tag = 'tui') AND NOT essential",
    "(section = 'libs' AND size < 50) OR (section = 'web' AND size > 950)",
    "section > 'a' AND section < 'h'",
    "TRUE",
    "FALSE",
    "1 = 2 OR size = 5",
};

/* What the document of each record says: 1 a match, 0 none; by get, one by one. */
static void filtered_expect(omendb_txn *txn, const omendb_filter *filter, uint8_t *expected)
{
    for (uint64_t id = 0; id < FILTERED_MANY; id++) {
        static char json[1024], key[64];
        uint8_t *document = NULL;
        size_t size = 0, key_size = 0;
        expected[id] = 0;
        if (omendb_get_metadata(filtered.docs, txn, id, NULL, 0, json, sizeof json, NULL) !=
                OMENDB_OK ||
            omendb_get_key(filtered.docs, txn, id, key, sizeof key, &key_size) != OMENDB_OK)
            continue;
        const int bare = strcmp(json, "{}") == 0;
        if (document_create(&filtered.db->memory, key_size == 0 ? NULL : key, key_size,
                            bare ? NULL : json, bare ? 0 : strlen(json), &document,
                            &size) == OMENDB_OK)
            expected[id] = (uint8_t)filter_matches(filter, id, document);
        memory_free(&filtered.db->memory, document, size);
    }
}

static int filtered_is_expected(void *expected, uint64_t id)
{
    return id < FILTERED_MANY && ((const uint8_t *)expected)[id];
}

/* 1 where counts and searches give exactly what documents say. */
static int filtered_agrees(omendb_txn *txn, const char *text)
{
    static uint8_t expected[FILTERED_MANY];
    static uint64_t ids[FILTERED_MANY], wanted_ids[FILTERED_MANY];
    static float distances[FILTERED_MANY], wanted[FILTERED_MANY];
    omendb_filter *filter = NULL;
    omendb_query query = OMENDB_QUERY_INIT, other;
    float vector[FILTERED_DIM];
    uint64_t count = 0, matching = 0;
    size_t found = 0, wanted_found = 0;
    int good = omendb_filter_compile(filtered.db, text, &filter) == OMENDB_OK;
    if (good)
        filtered_expect(txn, filter, expected);
    for (uint64_t id = 0; id < FILTERED_MANY; id++)
        matching += expected[id];
    good = good &&
           omendb_count_matching(filtered.docs, txn, filter, NULL, NULL, &count) == OMENDB_OK &&
           count == matching;
    support_vector(5, FILTERED_DIM, vector);
    query.vector = vector;
    /* With little effort a filter is worth listing only where it matches little. */
    for (int variant = 0; variant < 3 && good; variant++) {
        const int exact = variant > 0;
        query.exact = (uint32_t)exact;
        query.k = variant == 2 ? 40 : 10;
        query.ef = variant == 1 ? 10 : 0;
        query.filter = filter;
        other = query;
        other.filter = NULL;
        other.match = filtered_is_expected;
        other.match_context = expected;
        other.exact = 1;
        good = omendb_search(filtered.docs, txn, &query, ids, distances, &found) == OMENDB_OK &&
               omendb_search(filtered.docs, txn, &other, wanted_ids, wanted, &wanted_found) ==
                   OMENDB_OK &&
               found == wanted_found && found == (matching < query.k ? matching : query.k);
        for (size_t i = 0; i < found && good; i++)
            good = expected[ids[i]] && (!exact || ids[i] == wanted_ids[i]);
    }
    if (!good)
        fprintf(stderr, "    %s: %llu counted, %llu match, %zu found: %s\n", text,
                (unsigned long long)count, (unsigned long long)matching, found, omendb_errmsg());
    omendb_filter_free(filter);
    return good;
}

static int filtered_all_agree(omendb_txn *txn)
{
    for (size_t i = 0; i < sizeof filtered_texts / sizeof *filtered_texts; i++) {
        if (!filtered_agrees(txn, filtered_texts[i]))
            return 0;
    }
    return 1;
}

TEST(columns_and_documents_agree_in_memory_in_segments_and_after_merges)
{
    CHECK_EQ_INT(filtered_begin(), OMENDB_OK);
    CHECK_EQ_INT(filtered_fill(0, 1000), OMENDB_OK);
    CHECK(filtered_all_agree(NULL));
    CHECK_EQ_INT(omendb_checkpoint(filtered.db), OMENDB_OK);
    CHECK(filtered_all_agree(NULL));
    CHECK_EQ_INT(filtered_fill(500, FILTERED_MANY), OMENDB_OK);
    CHECK(filtered_all_agree(NULL));
    CHECK_EQ_INT(omendb_checkpoint(filtered.db), OMENDB_OK);
    CHECK(filtered_all_agree(NULL));
    CHECK_EQ_INT(omendb_optimize(filtered.db, NULL, NULL), OMENDB_OK);
    CHECK(filtered_all_agree(NULL));
    for (uint64_t id = 0; id < FILTERED_MANY; id += 3)
        CHECK_EQ_INT(omendb_delete(filtered.docs, NULL, id), OMENDB_OK);
    CHECK(filtered_all_agree(NULL));
    CHECK_EQ_INT(support_check(filtered.db), OMENDB_OK);
    CHECK_EQ_INT(filtered_end(), OMENDB_OK);
}

TEST(a_transaction_filters_what_it_sees)
{
    omendb_txn *txn = NULL, *snapshot = NULL;
    CHECK_EQ_INT(filtered_begin(), OMENDB_OK);
    CHECK_EQ_INT(filtered_fill(0, 600), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(filtered.db), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(filtered.db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(filtered.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    for (uint64_t id = 0; id < 200; id++)
        CHECK_EQ_INT(omendb_update(filtered.docs, txn, id, "{\"section\":\"web\",\"size\":5}"),
                     OMENDB_OK);
    CHECK(filtered_all_agree(txn));
    CHECK(filtered_all_agree(NULL));
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(filtered.db, NULL, NULL), OMENDB_OK);
    CHECK(filtered_all_agree(NULL));
    CHECK(filtered_all_agree(snapshot));
    omendb_txn_rollback(snapshot);
    CHECK_EQ_INT(filtered_end(), OMENDB_OK);
}

TEST(delete_matching_deletes_what_count_matching_counts)
{
    omendb_filter *filter = NULL;
    uint64_t counted = 0, deleted = 0, before = 0, after = 0;
    CHECK_EQ_INT(filtered_begin(), OMENDB_OK);
    CHECK_EQ_INT(filtered_fill(0, 900), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(filtered.db), OMENDB_OK);
    CHECK_EQ_INT(filtered_fill(800, 1000), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_compile(filtered.db, "section = 'web' OR size < 100", &filter),
                 OMENDB_OK);
    CHECK_EQ_INT(omendb_count(filtered.docs, NULL, &before), OMENDB_OK);
    CHECK_EQ_INT(omendb_count_matching(filtered.docs, NULL, filter, NULL, NULL, &counted),
                 OMENDB_OK);
    CHECK(counted > 100);
    CHECK_EQ_INT(omendb_delete_matching(filtered.docs, NULL, filter, NULL, NULL, &deleted),
                 OMENDB_OK);
    CHECK_EQ_INT(deleted, counted);
    CHECK_EQ_INT(omendb_count(filtered.docs, NULL, &after), OMENDB_OK);
    CHECK_EQ_INT(after, before - counted);
    CHECK_EQ_INT(omendb_count_matching(filtered.docs, NULL, filter, NULL, NULL, &counted),
                 OMENDB_OK);
    CHECK_EQ_INT(counted, 0);
    omendb_filter_free(filter);
    CHECK_EQ_INT(filtered_end(), OMENDB_OK);
}

/* As the columns count them, few matches are listed and compared; of many the graph is walked. */
TEST(explain_tells_that_few_matches_were_listed)
{
    static const struct {
        const char *text;
        uint32_t path;
    } cases[] = {{"size < 10", OMENDB_PATH_MATCHES},
                 {"section = 'web' AND size < 20", OMENDB_PATH_MATCHES},
                 {"none = 1", OMENDB_PATH_MATCHES},
                 {"size >= 5", OMENDB_PATH_WALK}};
    uint64_t ids[10];
    float vector[FILTERED_DIM];
    size_t found = 0;
    CHECK_EQ_INT(filtered_begin(), OMENDB_OK);
    CHECK_EQ_INT(filtered_fill(0, FILTERED_MANY), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(filtered.db, NULL, NULL), OMENDB_OK);
    support_vector(5, FILTERED_DIM, vector);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        omendb_explain explain = OMENDB_EXPLAIN_INIT;
        omendb_query query = OMENDB_QUERY_INIT;
        omendb_filter *filter = NULL;
        uint64_t matching = 0;
        CHECK_EQ_INT(omendb_filter_compile(filtered.db, cases[i].text, &filter), OMENDB_OK);
        CHECK_EQ_INT(omendb_count_matching(filtered.docs, NULL, filter, NULL, NULL, &matching),
                     OMENDB_OK);
        query.vector = vector;
        query.ef = 20;
        query.filter = filter;
        query.explain = &explain;
        CHECK_EQ_INT(omendb_search(filtered.docs, NULL, &query, ids, NULL, &found), OMENDB_OK);
        CHECK_EQ_INT(explain.path, cases[i].path);
        CHECK(explain.path != OMENDB_PATH_MATCHES || explain.distances <= 2 * matching);
        omendb_filter_free(filter);
    }
    CHECK_EQ_INT(filtered_end(), OMENDB_OK);
}

static void explain_condition(const char *text, uint32_t ef, uint32_t exact,
                              omendb_explain *explain)
{
    uint64_t ids[10];
    float vector[FILTERED_DIM];
    size_t found = 0;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_filter *filter = NULL;
    support_vector(5, FILTERED_DIM, vector);
    CHECK_EQ_INT(omendb_filter_compile(filtered.db, text, &filter), OMENDB_OK);
    omendb_explain_init(explain);
    query.vector = vector;
    query.ef = ef;
    query.exact = exact;
    query.filter = filter;
    query.explain = explain;
    CHECK_EQ_INT(omendb_search(filtered.docs, NULL, &query, ids, NULL, &found), OMENDB_OK);
    CHECK_EQ_INT(found, 10);
    omendb_filter_free(filter);
}

static int filtered_add_far(uint64_t first, uint64_t count)
{
    int status = OMENDB_OK;
    for (uint64_t id = first; id < first + count && status == OMENDB_OK; id++) {
        float vector[FILTERED_DIM];
        omendb_record record = OMENDB_RECORD_INIT;
        support_vector(id, FILTERED_DIM, vector);
        for (size_t i = 0; i < FILTERED_DIM; i++)
            vector[i] += 1000.0f;
        record.id = id;
        record.vector = vector;
        record.metadata = "{\"place\":\"far\"}";
        status = omendb_put(filtered.docs, NULL, &record, NULL);
    }
    return status;
}

/* Whatever led to the scan: of the other rows none is asked. */
TEST(a_scan_compares_what_the_columns_list)
{
    enum { FAR = 900 };
    omendb_explain explain;
    CHECK_EQ_INT(filtered_begin(), OMENDB_OK);
    CHECK_EQ_INT(filtered_fill(0, FILTERED_MANY), OMENDB_OK);
    CHECK_EQ_INT(filtered_add_far(FILTERED_MANY, FAR), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(filtered.db, NULL, NULL), OMENDB_OK);
    explain_condition("place = 'far'", 10, 1, &explain);
    CHECK_EQ_INT(explain.path, OMENDB_PATH_MATCHES);
    CHECK_EQ_INT(explain.matches_tested, FAR);
    explain_condition("place = 'far'", 10, 0, &explain);
    CHECK_EQ_INT(explain.path, OMENDB_PATH_WALK_THEN_SCAN | OMENDB_PATH_MATCHES);
    CHECK(explain.matches_tested < FILTERED_MANY);
    CHECK_EQ_INT(explain.scanned_rows, FAR);
    CHECK(explain.distances <= 2 * FAR);
    CHECK_EQ_INT(filtered_end(), OMENDB_OK);
}

TEST(a_cursor_shows_what_the_filter_lets_through_with_key_and_metadata)
{
    omendb_filter *filter = NULL;
    omendb_rows *rows = NULL;
    char key[32], metadata[512], expected[512], key_expected[32];
    uint64_t id = 0, counted = 0, shown = 0;
    CHECK_EQ_INT(filtered_begin(), OMENDB_OK);
    CHECK_EQ_INT(filtered_fill(0, 500), OMENDB_OK);
    CHECK_EQ_INT(omendb_checkpoint(filtered.db), OMENDB_OK);
    CHECK_EQ_INT(filtered_fill(400, 700), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_compile(filtered.db, "section = ?1 AND _id > 10", &filter),
                 OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_bind_text(filter, 1, "games"), OMENDB_OK);
    CHECK_EQ_INT(omendb_count_matching(filtered.docs, NULL, filter, NULL, NULL, &counted),
                 OMENDB_OK);
    CHECK_EQ_INT(omendb_scan_matching(filtered.docs, NULL, filter, 0, UINT64_MAX - 1, &rows),
                 OMENDB_OK);
    CHECK_EQ_INT(omendb_rows_key(rows, key, sizeof key, NULL), OMENDB_MISUSE);
    while (omendb_rows_next(rows, &id, OMENDB_F32, NULL) == OMENDB_OK) {
        shown++;
        snprintf(key_expected, sizeof key_expected, "key %llu", (unsigned long long)id);
        CHECK_EQ_INT(omendb_rows_key(rows, key, sizeof key, NULL), OMENDB_OK);
        CHECK_EQ_STR(key, id % 2 ? key_expected : "");
        CHECK_EQ_INT(omendb_rows_metadata(rows, NULL, 0, metadata, sizeof metadata, NULL),
                     OMENDB_OK);
        CHECK_EQ_INT(
            omendb_get_metadata(filtered.docs, NULL, id, NULL, 0, expected, sizeof expected, NULL),
            OMENDB_OK);
        CHECK_EQ_STR(metadata, expected);
        CHECK(strstr(metadata, "\"section\":\"games\"") != NULL);
    }
    CHECK_EQ_INT(shown, counted);
    omendb_rows_close(rows);
    omendb_filter_free(filter);
    CHECK_EQ_INT(filtered_end(), OMENDB_OK);
}

TEST(a_search_by_key_leaves_the_record_itself_out)
{
    omendb_query query = OMENDB_QUERY_INIT;
    const float vector[FILTERED_DIM] = {1};
    uint64_t ids[10], by_id[10];
    size_t found = 0, found_by_id = 0;
    CHECK_EQ_INT(filtered_begin(), OMENDB_OK);
    CHECK_EQ_INT(filtered_fill(0, 100), OMENDB_OK);
    query.key = "key 7";
    CHECK_EQ_INT(omendb_search(filtered.docs, NULL, &query, ids, NULL, &found), OMENDB_OK);
    query.key = NULL;
    query.id = 7;
    CHECK_EQ_INT(omendb_search(filtered.docs, NULL, &query, by_id, NULL, &found_by_id), OMENDB_OK);
    CHECK_EQ_INT(found, 10);
    CHECK_EQ_INT(found_by_id, 10);
    CHECK(memcmp(ids, by_id, sizeof ids) == 0);
    query.id = OMENDB_ID_AUTO;
    CHECK_EQ_INT(omendb_search(filtered.docs, NULL, &query, ids, NULL, &found), OMENDB_INVALID);
    query.vector = vector;
    query.key = "key 7";
    CHECK_EQ_INT(omendb_search(filtered.docs, NULL, &query, ids, NULL, &found), OMENDB_INVALID);
    CHECK(strstr(omendb_errmsg(), "query.vector is set beside query.key") != NULL);
    query.vector = NULL;
    query.key = "none";
    CHECK_EQ_INT(omendb_search(filtered.docs, NULL, &query, ids, NULL, &found), OMENDB_NOTFOUND);
    CHECK_EQ_INT(filtered_end(), OMENDB_OK);
}

TEST(a_batch_over_threads_gives_what_single_searches_give)
{
    enum { BATCH_QUERIES = 64, BATCH_K = 10 };
    static float vectors[BATCH_QUERIES * FILTERED_DIM];
    static uint64_t ids[BATCH_QUERIES * BATCH_K];
    static size_t counts[BATCH_QUERIES];
    static const char *const texts[] = {"size < 30", "section = 'web' AND NOT tag = 'c'",
                                        "_key LIKE 'key 1%'"};
    omendb_options options = OMENDB_OPTIONS_INIT;
    uint64_t single[BATCH_K];
    size_t found = 0;
    CHECK_EQ_INT(filtered_begin(), OMENDB_OK);
    CHECK_EQ_INT(filtered_fill(0, 2000), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(filtered.db, NULL, NULL), OMENDB_OK);
    omendb_collection_close(filtered.docs);
    CHECK_EQ_INT(omendb_close(filtered.db), OMENDB_OK);
    options.threads = 3;
    CHECK_EQ_INT(omendb_open(filtered.path, &options, &filtered.db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_open(filtered.db, "docs", NULL, &filtered.docs), OMENDB_OK);
    CHECK_EQ_INT(filtered_fill(1900, 2300), OMENDB_OK);
    for (uint64_t i = 0; i < BATCH_QUERIES; i++)
        support_vector(i + 77, FILTERED_DIM, vectors + i * FILTERED_DIM);
    for (size_t t = 0; t < sizeof texts / sizeof *texts; t++) {
        omendb_query query = OMENDB_QUERY_INIT;
        omendb_filter *filter = NULL;
        CHECK_EQ_INT(omendb_filter_compile(filtered.db, texts[t], &filter), OMENDB_OK);
        query.filter = filter;
        query.exact = 1;
        query.k = BATCH_K;
        CHECK_EQ_INT(omendb_search_batch(filtered.docs, NULL, &query, vectors, BATCH_QUERIES, ids,
                                         NULL, counts),
                     OMENDB_OK);
        for (size_t i = 0; i < BATCH_QUERIES; i++) {
            query.vector = vectors + i * FILTERED_DIM;
            CHECK_EQ_INT(omendb_search(filtered.docs, NULL, &query, single, NULL, &found),
                         OMENDB_OK);
            CHECK_EQ_INT(found, counts[i]);
            CHECK(memcmp(single, ids + i * BATCH_K, found * sizeof *single) == 0);
        }
        omendb_filter_free(filter);
    }
    CHECK_EQ_INT(filtered_end(), OMENDB_OK);
}

/* Where memory is short, columns are left out, and the documents are asked. */
TEST(a_small_memory_limit_leaves_columns_out_and_merges_go_on)
{
    enum { LIMITED_ROWS = 20000, LIMITED_FIELDS = 60 };
    static char json[LIMITED_FIELDS * 24];
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_filter *filter = NULL;
    uint64_t count = 0;
    memset(&filtered, 0, sizeof filtered);
    snprintf(filtered.path, sizeof filtered.path, "%s", support_path("limited"));
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    options.memory_limit = 24 << 20;
    schema.dim = FILTERED_DIM;
    CHECK_EQ_INT(omendb_open(filtered.path, &options, &filtered.db), OMENDB_OK);
    CHECK_EQ_INT(omendb_collection_create(filtered.db, "docs", &schema, &filtered.docs), OMENDB_OK);
    for (uint64_t id = 0; id < LIMITED_ROWS; id++) {
        float vector[FILTERED_DIM];
        omendb_record record = OMENDB_RECORD_INIT;
        size_t at = 0;
        for (uint64_t field = 0; field < LIMITED_FIELDS; field++)
            at += (size_t)snprintf(json + at, sizeof json - at, "%s\"f%llu\":%llu",
                                   field == 0 ? "{" : ",", (unsigned long long)field,
                                   (unsigned long long)(id * 64 + field));
        snprintf(json + at, sizeof json - at, "}");
        support_vector(id, FILTERED_DIM, vector);
        record.id = id;
        record.vector = vector;
        record.metadata = json;
        CHECK_EQ_INT(omendb_put(filtered.docs, NULL, &record, NULL), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_optimize(filtered.db, NULL, NULL), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_compile(filtered.db, "f7 < 64000 AND f59 >= 6400", &filter),
                 OMENDB_OK);
    CHECK_EQ_INT(omendb_count_matching(filtered.docs, NULL, filter, NULL, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 1000 - 100);
    omendb_filter_free(filter);
    CHECK_EQ_INT(support_check(filtered.db), OMENDB_OK);
    CHECK_EQ_INT(filtered_end(), OMENDB_OK);
}

TEST_MAIN(columns_and_documents_agree_in_memory_in_segments_and_after_merges,
          a_transaction_filters_what_it_sees, delete_matching_deletes_what_count_matching_counts,
          explain_tells_that_few_matches_were_listed, a_scan_compares_what_the_columns_list,
          a_cursor_shows_what_the_filter_lets_through_with_key_and_metadata,
          a_search_by_key_leaves_the_record_itself_out,
          a_batch_over_threads_gives_what_single_searches_give,
          a_small_memory_limit_leaves_columns_out_and_merges_go_on)
