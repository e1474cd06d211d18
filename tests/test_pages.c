/* test_pages.c: pages of hits. With `exact` one after the other they are what a single search
 * gives; without it nothing comes twice and all comes in the end; and what is committed meanwhile
 * changes nothing. */
#include "asking.h"

static struct asking_hit pages_sorted[ASKING_MANY];
static uint64_t pages_ids[ASKING_MANY + 100];
static float pages_distances[ASKING_MANY + 100];

/* All pages, of sizes that `step` makes, into the arrays; the number of hits, or SIZE_MAX. */
static size_t pages_read(omendb_pages *pages, size_t step, int with_distances)
{
    size_t all = 0, count = 0;
    for (size_t page = 0;; page++) {
        const size_t k = 1 + (page * 7 + step) % step;
        if (all + k > ASKING_MANY + 100)
            return SIZE_MAX;
        const int status = omendb_pages_next(pages, k, 0, pages_ids + all,
                                             with_distances ? pages_distances + all : NULL, &count);
        if (status == OMENDB_DONE && count == 0)
            return all;
        if (status != OMENDB_OK || count == 0 || count > k)
            return SIZE_MAX;
        all += count;
    }
}

static int pages_equal(size_t count, size_t expected)
{
    int same = count == expected;
    for (size_t i = 0; i < count && same; i++)
        same = pages_ids[i] == pages_sorted[i].id && pages_distances[i] == pages_sorted[i].distance;
    if (!same)
        fprintf(stderr, "    %zu hits in pages of %zu\n", count, expected);
    return same;
}

/* Whether all are among the `expected` ones, whatever the order, and none comes twice. */
static int pages_are_among(size_t count, size_t expected)
{
    static uint8_t seen[ASKING_MANY];
    memset(seen, 0, sizeof seen);
    for (size_t i = 0; i < expected; i++)
        seen[pages_sorted[i].id] = 1;
    for (size_t i = 0; i < count; i++) {
        if (count > expected || pages_ids[i] >= ASKING_MANY || !seen[pages_ids[i]])
            return 0;
        seen[pages_ids[i]] = 0;
    }
    return 1;
}

static int pages_agree(omendb_txn *txn, const omendb_filter *filter, float radius)
{
    static const size_t steps[] = {1, 10, 333, 3000};
    float vector[ASKING_DIM];
    omendb_query query = OMENDB_QUERY_INIT;
    int agree = 1;
    support_vector(4711, ASKING_DIM, vector);
    size_t all = asking_sort(vector, filter != NULL ? 30 : 100, pages_sorted), within = 0;
    while (within < all && (radius == 0.0f || pages_sorted[within].distance <= radius))
        within++;
    query.vector = vector;
    query.filter = filter;
    query.use_radius = radius != 0.0f;
    query.radius = radius;
    for (size_t s = 0; s < 4; s++)
        for (uint32_t exact = 0; exact < 2; exact++) {
            omendb_pages *pages = NULL;
            query.exact = exact;
            agree &= omendb_pages_open(asking.docs, txn, &query, &pages) == OMENDB_OK;
            const size_t count = pages_read(pages, steps[s], 1);
            agree &= exact ? pages_equal(count, within)
                           : pages_are_among(count, within) && (radius != 0.0f || count == within);
            omendb_pages_close(pages);
        }
    return agree;
}

TEST(pages_are_parts_of_one_search)
{
    omendb_filter *filter = NULL;
    omendb_txn *txn = NULL;
    CHECK_EQ_INT(asking_open("pages", 0), OMENDB_OK);
    CHECK(pages_agree(NULL, NULL, 0.0f));
    CHECK_EQ_INT(asking_fill(), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_compile(asking.db, "size < 30", &filter), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(asking.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK(pages_agree(NULL, NULL, 0.0f));
    CHECK(pages_agree(NULL, filter, 0.0f));
    CHECK(pages_agree(txn, filter, 60.0f));
    CHECK_EQ_INT(asking_change(txn, 5, ASKING_MANY, 29, 2), OMENDB_OK);
    CHECK(pages_agree(txn, NULL, 0.0f));
    CHECK(pages_agree(txn, filter, 0.0f));
    CHECK(pages_agree(txn, NULL, 60.0f));
    omendb_txn_rollback(txn);
    omendb_filter_free(filter);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

/* Half of what a page would have is deleted, replaced, merged and dropped between two pages. */
TEST(what_is_committed_between_pages_changes_nothing)
{
    for (uint32_t exact = 0; exact < 2; exact++) {
        omendb_pages *pages = NULL, *snapshot_pages = NULL;
        omendb_txn *snapshot = NULL;
        omendb_query query = OMENDB_QUERY_INIT;
        float vector[ASKING_DIM];
        size_t count = 0, more;
        CHECK_EQ_INT(asking_open("stable", 0), OMENDB_OK);
        CHECK_EQ_INT(asking_fill(), OMENDB_OK);
        support_vector(815, ASKING_DIM, vector);
        const size_t all = asking_sort(vector, 100, pages_sorted);
        query.vector = vector;
        query.exact = exact;
        CHECK_EQ_INT(omendb_txn_begin(asking.db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
        CHECK_EQ_INT(omendb_pages_open(asking.docs, NULL, &query, &pages), OMENDB_OK);
        memset(vector, 0, sizeof vector); /* was copied */
        CHECK_EQ_INT(omendb_pages_next(pages, 50, 0, pages_ids, pages_distances, &count),
                     OMENDB_OK);
        CHECK_EQ_INT(count, 50);
        CHECK_EQ_INT(asking_change(NULL, 0, ASKING_MANY, 2, 9), OMENDB_OK);
        CHECK_EQ_INT(omendb_optimize(asking.db, NULL, NULL), OMENDB_OK);
        support_vector(815, ASKING_DIM, vector);
        CHECK_EQ_INT(omendb_pages_open(asking.docs, snapshot, &query, &snapshot_pages), OMENDB_OK);
        more = pages_read(snapshot_pages, 100, 1);
        CHECK(exact ? pages_equal(more, all) : more == all && pages_are_among(more, all));
        omendb_pages_close(snapshot_pages);
        omendb_txn_rollback(snapshot);
        omendb_collection_close(asking.docs);
        asking.docs = NULL;
        CHECK_EQ_INT(omendb_collection_drop(asking.db, "docs"), OMENDB_OK);
        CHECK_EQ_INT(omendb_pages_next(pages, 50, 0, pages_ids, pages_distances, &count),
                     OMENDB_OK);
        for (size_t i = 0; i < 50 && exact; i++)
            CHECK_EQ_INT(pages_ids[i], pages_sorted[50 + i].id);
        more = pages_read(pages, 100, 1);
        CHECK_EQ_INT(more, all - 100);
        for (size_t i = 0; i < more && exact; i++)
            CHECK_EQ_INT(pages_ids[i], pages_sorted[100 + i].id);
        CHECK_EQ_INT(omendb_close(asking.db), OMENDB_BUSY);
        omendb_pages_close(pages);
        CHECK_EQ_INT(asking_close(), OMENDB_OK);
    }
}

TEST(pages_end_with_their_transaction)
{
    omendb_pages *pages = NULL;
    omendb_txn *txn = NULL;
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_stats stats = OMENDB_STATS_INIT;
    float vector[ASKING_DIM] = {1};
    uint64_t id = 0;
    size_t count = 7;
    CHECK_EQ_INT(asking_open("ended", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_put_many(0, 100), OMENDB_OK);
    query.vector = vector;
    CHECK_EQ_INT(omendb_txn_begin(asking.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(asking_delete(txn, 3), OMENDB_OK);
    CHECK_EQ_INT(omendb_pages_open(asking.docs, txn, &query, &pages), OMENDB_OK);
    CHECK_EQ_INT(omendb_get_stats(asking.db, &stats), OMENDB_OK);
    CHECK_EQ_INT(stats.open_cursors, 1);
    CHECK_EQ_INT(omendb_pages_next(pages, 1, 0, &id, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 1);
    CHECK_EQ_INT(omendb_pages_next(pages, 0, 0, &id, NULL, &count), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_pages_next(pages, SIZE_MAX, 0, NULL, NULL, &count), OMENDB_MISUSE);
    omendb_txn_rollback(txn);
    CHECK_EQ_INT(omendb_pages_next(pages, 1, 0, &id, NULL, &count), OMENDB_MISUSE);
    CHECK_EQ_INT(count, 0);
    omendb_pages_close(pages);
    omendb_pages_close(NULL);
    query.group_by = "doc";
    CHECK_EQ_INT(omendb_pages_open(asking.docs, NULL, &query, &pages), OMENDB_UNSUPPORTED);
    CHECK(pages == NULL);
    query.group_by = NULL;
    query.vector = NULL;
    CHECK_EQ_INT(omendb_pages_open(asking.docs, NULL, &query, &pages), OMENDB_INVALID);
    query.id = 12345;
    CHECK_EQ_INT(omendb_pages_open(asking.docs, NULL, &query, &pages), OMENDB_NOTFOUND);
    CHECK(pages == NULL);
    query.id = 5;
    omendb_explain unset = {0};
    query.explain = &unset; /* which pages do not use */
    CHECK_EQ_INT(omendb_pages_open(asking.docs, NULL, &query, &pages), OMENDB_OK);
    CHECK_EQ_INT(pages_read(pages, 10, 0), 99);
    for (size_t i = 0; i < 99; i++)
        CHECK(pages_ids[i] != 5);
    omendb_pages_close(pages);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

/* A page far behind costs no search of its own: all of them together some four times the last. */
static int pages_count_calls(void *context, uint64_t id)
{
    (void)id;
    ++*(size_t *)context;
    return 1;
}

TEST(many_pages_take_few_searches)
{
    omendb_pages *pages = NULL;
    omendb_query query = OMENDB_QUERY_INIT;
    float vector[ASKING_DIM] = {1};
    size_t calls = 0, count = 0;
    CHECK_EQ_INT(asking_open("few", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_put_many(0, ASKING_MANY), OMENDB_OK);
    query.vector = vector;
    query.exact = 1;
    query.match = pages_count_calls;
    query.match_context = &calls;
    CHECK_EQ_INT(omendb_pages_open(asking.docs, NULL, &query, &pages), OMENDB_OK);
    for (int page = 0; page < 100; page++)
        CHECK_EQ_INT(omendb_pages_next(pages, 10, 0, pages_ids, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(calls, 7 * ASKING_MANY); /* searches for 20, 40, ... 1280 */
    omendb_pages_close(pages);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

/* The filter is bound to 30 and freed: what follows is as of then. A cursor opened beside them, and
 * everything in one transaction or none. */
TEST(pages_and_cursors_keep_the_filter_that_they_were_opened_with)
{
    omendb_pages *pages = NULL;
    omendb_rows *rows = NULL;
    omendb_filter *filter = NULL;
    omendb_query query = OMENDB_QUERY_INIT;
    float vector[ASKING_DIM];
    size_t found = 0, shown = 0;
    CHECK_EQ_INT(asking_open("held", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_fill(), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_compile(asking.db, "size < ?", &filter), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_bind_i64(filter, 1, 30), OMENDB_OK);
    support_vector(815, ASKING_DIM, vector);
    const size_t all = asking_sort(vector, 30, pages_sorted);
    query.vector = vector;
    query.exact = 1;
    query.filter = filter;
    CHECK_EQ_INT(omendb_pages_open(asking.docs, NULL, &query, &pages), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_bind_i64(filter, 1, 80), OMENDB_BUSY);
    CHECK(strstr(omendb_errmsg(), "1 open pages or cursors") != NULL);
    CHECK_EQ_INT(omendb_scan_matching(asking.docs, NULL, filter, 0, UINT64_MAX, &rows), OMENDB_OK);
    omendb_pages_close(pages);
    CHECK_EQ_INT(omendb_filter_bind_null(filter, 1), OMENDB_BUSY);
    CHECK_EQ_INT(omendb_filter_bind_text(filter, 1, "x"), OMENDB_BUSY);
    CHECK_EQ_INT(omendb_filter_bind_texts(filter, 1, NULL, 0), OMENDB_BUSY);
    CHECK_EQ_INT(omendb_pages_open(asking.docs, NULL, &query, &pages), OMENDB_OK);
    omendb_filter_free(filter);
    found = pages_read(pages, 100, 1);
    CHECK(pages_equal(found, all));
    while (omendb_rows_next(rows, NULL, OMENDB_F32, NULL) == OMENDB_OK)
        shown++;
    CHECK_EQ_INT(shown, all);
    omendb_rows_close(rows);
    CHECK_EQ_INT(omendb_close(asking.db), OMENDB_BUSY);
    omendb_pages_close(pages);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

TEST(a_filter_that_nothing_uses_any_more_can_be_bound_anew)
{
    omendb_pages *pages = NULL;
    omendb_filter *filter = NULL;
    omendb_query query = OMENDB_QUERY_INIT;
    const float vector[ASKING_DIM] = {1};
    CHECK_EQ_INT(asking_open("anew", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_put_many(0, 100), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_compile(asking.db, "size < ?", &filter), OMENDB_OK);
    query.filter = filter;
    CHECK_EQ_INT(omendb_pages_open(asking.docs, NULL, &query, &pages), OMENDB_INVALID);
    CHECK_EQ_INT(omendb_filter_bind_i64(filter, 1, 30), OMENDB_OK);
    query.vector = vector;
    CHECK_EQ_INT(omendb_pages_open(asking.docs, NULL, &query, &pages), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_bind_i64(filter, 1, 40), OMENDB_BUSY);
    omendb_pages_close(pages);
    CHECK_EQ_INT(omendb_filter_bind_i64(filter, 1, 40), OMENDB_OK);
    omendb_filter_free(filter);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

TEST_MAIN(pages_are_parts_of_one_search, what_is_committed_between_pages_changes_nothing,
          pages_end_with_their_transaction, many_pages_take_few_searches,
          pages_and_cursors_keep_the_filter_that_they_were_opened_with,
          a_filter_that_nothing_uses_any_more_can_be_bound_anew)
