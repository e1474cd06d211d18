/* test_unreadable.c: a segment of which no block was read yet, and one block after the other that
 * the system cannot read, under the check of its graph, a walk to every row, and a search: each
 * says so, and does not take the graph for damaged or the answer for complete. */
#include "internals.h"

#include <pthread.h>

#include "crash_vfs.h"
#include "support.h"
#include "test.h"

#define UNREADABLE_DIM  16
#define UNREADABLE_ROWS 3000
#define UNREADABLE_HITS 10

static struct {
    struct crash_fs *fs;
    omendb *db;
    omendb_collection *docs;
    struct version *version;
    const struct segment *segment;
    uint32_t scalar;
} unreadable;

static int unreadable_open(void)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.vfs = &unreadable.fs->vfs;
    options.threads = 0;
    options.io = OMENDB_IO_PREAD;
    options.tail_limit = UINT64_C(1) << 30;
    schema.dim = UNREADABLE_DIM;
    schema.scalar = unreadable.scalar;
    schema.M = 8;
    schema.ef_construction = 16;
    int status = omendb_open("/db", &options, &unreadable.db);
    if (status == OMENDB_OK)
        status = omendb_collection_open_or_create(unreadable.db, "docs", &schema, &unreadable.docs);
    if (status != OMENDB_OK)
        return status;
    unreadable.version = version_acquire(unreadable.docs->collection);
    if (unreadable.version->segment_count != 0)
        unreadable.segment = unreadable.version->segments[0];
    return OMENDB_OK;
}

static int unreadable_close(void)
{
    unreadable.fs->faults.kinds = 0;
    version_release(unreadable.version);
    omendb_collection_close(unreadable.docs);
    return omendb_close(unreadable.db);
}

static int unreadable_begin_as(uint32_t scalar, int equal)
{
    static float vectors[UNREADABLE_ROWS * UNREADABLE_DIM];
    memset(&unreadable, 0, sizeof unreadable);
    unreadable.fs = crash_fs_create(0);
    unreadable.scalar = scalar;
    for (uint64_t i = 0; i < UNREADABLE_ROWS; i++)
        support_vector(equal ? 7 : i, UNREADABLE_DIM, vectors + i * UNREADABLE_DIM);
    /* What codes do not tell exactly is compared by the vectors. */
    for (size_t i = 0; i < UNREADABLE_ROWS * UNREADABLE_DIM && !equal; i++)
        vectors[i] += (float)(i % 97) * 0.0137f;
    int status = unreadable_open();
    if (status == OMENDB_OK)
        status = omendb_add_batch(unreadable.docs, NULL, UNREADABLE_ROWS, NULL, vectors, OMENDB_F32,
                                  NULL);
    if (status == OMENDB_OK)
        status = omendb_optimize(unreadable.db, NULL, NULL);
    return status == OMENDB_OK ? unreadable_close() : status;
}

static int unreadable_begin(void)
{
    return unreadable_begin_as(OMENDB_I8, 0);
}

/* ------------------------------------------------------------------------------------------------
 * what reads the graph; *answer: what it found */

static void unreadable_count(void *context, const char *sentence)
{
    *(uint64_t *)context += sentence[0] != '\0';
}

static int unreadable_check(uint64_t *answer)
{
    return graph_check(&unreadable.segment->graph, UNREADABLE_ROWS, &unreadable.db->memory,
                       unreadable_count, answer);
}

static int unreadable_reach(uint64_t *answer)
{
    static uint64_t reached[UNREADABLE_ROWS / 64 + 1];
    static uint32_t queue[UNREADABLE_ROWS];
    const struct graph_view *view = &unreadable.segment->graph;
    uint32_t found = 0;
    memset(reached, 0, sizeof reached);
    int code = graph_view_reach(view, view->entry_row, reached, queue, &found);
    if (code == OMENDB_OK) /* nothing is met twice */
        code = graph_view_reach(view, view->entry_row, reached, queue, &found);
    *answer = found;
    return code;
}

static int unreadable_walk(uint64_t *answer)
{
    int8_t query[UNREADABLE_DIM];
    struct graph_hit hits[64];
    const struct graph_effort effort = {.ef = 64, .k = UNREADABLE_HITS};
    size_t count = 0;
    struct scratch *scratch = scratch_take(unreadable.db);
    for (int i = 0; i < UNREADABLE_DIM; i++)
        query[i] = (int8_t)(i % 5 - 2);
    const int code = scratch == NULL ? OMENDB_NOMEM
                                     : graph_search(&unreadable.segment->graph, scratch->graph,
                                                    query, &effort, NULL, hits, &count, NULL);
    scratch_give(unreadable.db, scratch);
    *answer = count;
    for (size_t i = 0; i < count && i < UNREADABLE_HITS; i++)
        *answer = *answer * 31 + hits[i].row;
    return code;
}

static int unreadable_ask(omendb_txn *txn, uint32_t exact, uint64_t *answer)
{
    float vector[UNREADABLE_DIM];
    uint64_t ids[UNREADABLE_HITS];
    omendb_query query = OMENDB_QUERY_INIT;
    size_t count = 0;
    support_vector(100000, UNREADABLE_DIM, vector);
    query.vector = vector;
    query.k = UNREADABLE_HITS;
    query.exact = exact;
    query.ef = exact ? 0 : 32;
    const int code = omendb_search(unreadable.docs, txn, &query, ids, NULL, &count);
    *answer = code == OMENDB_OK ? support_hash(ids, count * sizeof *ids, count) : 0;
    return code;
}

static int unreadable_search(uint64_t *answer)
{
    return unreadable_ask(NULL, 0, answer);
}

static int unreadable_search_exactly(uint64_t *answer)
{
    return unreadable_ask(NULL, 1, answer);
}

/* So many records are deleted in a transaction that their rows are hidden from what looks for hits,
 * those among them that would be the first ones. */
static int unreadable_search_hidden(uint32_t exact, uint64_t *answer)
{
    enum { FIRST = 60, OTHERS = 100 };
    static uint64_t hidden[FIRST + OTHERS];
    static size_t count;
    omendb_query query = OMENDB_QUERY_INIT;
    float vector[UNREADABLE_DIM];
    omendb_txn *txn = NULL;
    int code = OMENDB_OK;
    if (count == 0) {
        support_vector(100000, UNREADABLE_DIM, vector);
        query.vector = vector;
        query.k = FIRST;
        query.exact = 1;
        code = omendb_search(unreadable.docs, NULL, &query, hidden, NULL, &count);
        for (uint64_t i = 0; i < OTHERS; i++)
            hidden[count++] = 1 + i * 20;
    }
    if (code == OMENDB_OK)
        code = omendb_txn_begin(unreadable.db, OMENDB_READ_WRITE, &txn);
    if (code == OMENDB_OK)
        code = omendb_delete_batch(unreadable.docs, txn, count, hidden, NULL);
    if (code == OMENDB_OK)
        code = unreadable_ask(txn, exact, answer);
    omendb_txn_rollback(txn);
    return code;
}

static int unreadable_search_changed(uint64_t *answer)
{
    return unreadable_search_hidden(0, answer);
}

static int unreadable_search_changed_exactly(uint64_t *answer)
{
    return unreadable_search_hidden(1, answer);
}

/* Each call of the file system fails once, in a database that has read nothing. */
static void unreadable_everywhere(int (*act)(uint64_t *answer))
{
    uint64_t expected = 0, failed = 0, calls = 1;
    for (uint64_t at = 0; at <= calls; at++) {
        uint64_t answer = 0;
        CHECK_EQ_INT(unreadable_open(), OMENDB_OK);
        crash_faults_begin(unreadable.fs, CRASH_CALL_READ, at, 0, OMENDB_IOERR, EIO);
        const int code = act(&answer);
        unreadable.fs->faults.kinds = 0;
        if (at == 0) {
            CHECK_EQ_INT(code, OMENDB_OK);
            expected = answer;
            calls = unreadable.fs->faults.calls;
        } else {
            CHECK_EQ_INT(code, OMENDB_IOERR);
            failed++;
        }
        CHECK_EQ_INT(act(&answer), OMENDB_OK); /* it is read the second time */
        CHECK(at == 0 || act == unreadable_check || act == unreadable_reach || answer == expected);
        CHECK_EQ_INT(unreadable_close(), OMENDB_OK);
    }
    CHECK(failed > 3);
}

TEST(a_graph_of_which_a_block_cannot_be_read_is_not_called_damaged)
{
    CHECK_EQ_INT(unreadable_begin(), OMENDB_OK);
    unreadable_everywhere(unreadable_check);
    crash_fs_destroy(unreadable.fs);
}

TEST(rows_behind_a_block_that_cannot_be_read_are_not_called_lost)
{
    CHECK_EQ_INT(unreadable_begin(), OMENDB_OK);
    unreadable_everywhere(unreadable_reach);
    crash_fs_destroy(unreadable.fs);
}

TEST(a_walk_over_a_block_that_cannot_be_read_is_no_answer)
{
    CHECK_EQ_INT(unreadable_begin(), OMENDB_OK);
    unreadable_everywhere(unreadable_walk);
    crash_fs_destroy(unreadable.fs);
}

/* By codes first, then by the vectors of the best. */
TEST(a_search_over_a_block_that_cannot_be_read_is_no_answer)
{
    CHECK_EQ_INT(unreadable_begin_as(OMENDB_F32, 0), OMENDB_OK);
    unreadable_everywhere(unreadable_search);
    unreadable_everywhere(unreadable_search_exactly);
    crash_fs_destroy(unreadable.fs);
}

/* An exact one looks twice, as all are at one distance. */
TEST(nor_is_one_among_equal_records)
{
    CHECK_EQ_INT(unreadable_begin_as(OMENDB_F32, 1), OMENDB_OK);
    unreadable_everywhere(unreadable_search_exactly);
    crash_fs_destroy(unreadable.fs);
}

TEST(nor_is_one_in_a_transaction_that_hides_records)
{
    uint64_t answer;
    CHECK_EQ_INT(unreadable_begin_as(OMENDB_F32, 0), OMENDB_OK);
    CHECK_EQ_INT(unreadable_open(), OMENDB_OK);
    CHECK_EQ_INT(unreadable_search_changed(&answer), OMENDB_OK); /* finds which to hide */
    CHECK_EQ_INT(unreadable_close(), OMENDB_OK);
    unreadable_everywhere(unreadable_search_changed);
    unreadable_everywhere(unreadable_search_changed_exactly);
    crash_fs_destroy(unreadable.fs);
}

/* ------------------------------------------------------------------------------------------------
 * what graphs say of themselves, and what is asked for nothing */

TEST(a_graph_of_more_rows_than_there_are_is_damaged)
{
    uint64_t sentences = 0;
    CHECK_EQ_INT(unreadable_begin(), OMENDB_OK);
    CHECK_EQ_INT(unreadable_open(), OMENDB_OK);
    struct graph_view view = unreadable.segment->graph;
    CHECK_EQ_INT(graph_check(&view, UNREADABLE_ROWS + 5, &unreadable.db->memory, unreadable_count,
                             &sentences),
                 OMENDB_CORRUPT);
    CHECK_EQ_INT(sentences, 1);
    view.count = 0;
    sentences = 0;
    CHECK_EQ_INT(graph_check(&view, 5, &unreadable.db->memory, unreadable_count, &sentences),
                 OMENDB_CORRUPT);
    CHECK_EQ_INT(sentences, 1);
    CHECK_EQ_INT(unreadable_close(), OMENDB_OK);
    crash_fs_destroy(unreadable.fs);
}

TEST(a_search_leaves_the_row_out_that_it_is_told_to)
{
    int8_t query[UNREADABLE_DIM] = {0};
    struct graph_hit hits[64];
    struct graph_effort effort = {.ef = 32, .k = UNREADABLE_HITS};
    struct graph_filter filter = {.row_limit = UNREADABLE_ROWS, .excluded_row = GRAPH_NO_ROW};
    size_t count = 0, scanned = 0;
    CHECK_EQ_INT(unreadable_begin(), OMENDB_OK);
    CHECK_EQ_INT(unreadable_open(), OMENDB_OK);
    const struct graph_view *view = &unreadable.segment->graph;
    struct scratch *scratch = scratch_take(unreadable.db);
    CHECK_EQ_INT(graph_search(view, scratch->graph, query, &effort, &filter, hits, &count, NULL),
                 OMENDB_OK);
    CHECK(count >= UNREADABLE_HITS);
    const uint32_t nearest = hits[0].row;
    filter.excluded_row = nearest;
    CHECK_EQ_INT(graph_search(view, scratch->graph, query, &effort, &filter, hits, &count, NULL),
                 OMENDB_OK);
    for (size_t i = 0; i < count; i++)
        CHECK(hits[i].row != nearest);
    /* for no hit at all */
    effort.k = 0;
    CHECK_EQ_INT(graph_search(view, scratch->graph, query, &effort, &filter, hits, &count, NULL),
                 OMENDB_OK);
    struct graph_counters counters = {0, 0};
    CHECK_EQ_INT(graph_scan(view, scratch->graph, query, 0, UNREADABLE_ROWS, 0, NULL, hits,
                            &scanned, &counters),
                 OMENDB_OK);
    CHECK_EQ_INT(scanned, 0);
    scratch_give(unreadable.db, scratch);
    CHECK_EQ_INT(unreadable_close(), OMENDB_OK);
    crash_fs_destroy(unreadable.fs);
}

TEST_MAIN(a_graph_of_which_a_block_cannot_be_read_is_not_called_damaged,
          rows_behind_a_block_that_cannot_be_read_are_not_called_lost,
          a_walk_over_a_block_that_cannot_be_read_is_no_answer,
          a_search_over_a_block_that_cannot_be_read_is_no_answer, nor_is_one_among_equal_records,
          nor_is_one_in_a_transaction_that_hides_records,
          a_graph_of_more_rows_than_there_are_is_damaged,
          a_search_leaves_the_row_out_that_it_is_told_to)
