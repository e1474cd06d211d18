/* test_groups.c: groups of hits. With `exact` they are what a model takes that goes through all
 * records in the order of distance; without it no value has more hits than it may, and there are
 * k of them whenever k can be. */
#include "asking.h"

#define GROUPS_CODES 20000 /* values of the model are below */

/* The model: of hits in order, which are taken. */
static size_t groups_expect(const struct asking_hit *sorted, size_t count, const char *field,
                            size_t size, size_t k, struct asking_hit *taken)
{
    static size_t used[GROUPS_CODES];
    size_t nulls = 0, found = 0;
    memset(used, 0, sizeof used);
    for (size_t i = 0; i < count && found < k; i++) {
        const struct asking_field values = asking_field_of(sorted[i].id, field);
        int full = values.is_null && nulls >= size;
        for (int v = 0; v < values.count; v++)
            full |= used[values.values[v]] >= size;
        if (full)
            continue;
        taken[found++] = sorted[i];
        nulls += (size_t)values.is_null;
        for (int v = 0; v < values.count; v++) {
            int twice = 0;
            for (int w = 0; w < v; w++)
                twice |= values.values[w] == values.values[v];
            used[values.values[v]] += (size_t)!twice;
        }
    }
    return found;
}

static uint64_t groups_ids[ASKING_MANY];
static float groups_distances[ASKING_MANY];

/* Whether no value has more than `size` of the hits, which are in order, live, and not repeated. */
static int groups_are_sound(size_t count, const char *field, size_t size)
{
    static struct asking_hit hits[ASKING_MANY], taken[ASKING_MANY];
    for (size_t i = 0; i < count; i++) {
        hits[i] = (struct asking_hit){groups_distances[i], groups_ids[i]};
        if (groups_ids[i] >= ASKING_MANY || !asking.records[groups_ids[i]].live ||
            (i != 0 && asking_compare_hits(&hits[i - 1], &hits[i]) >= 0))
            return 0;
    }
    return groups_expect(hits, count, field, size, count, taken) == count;
}

struct groups_case {
    const char *field;
    size_t size, k;
    int filtered, exact;
    float radius;
};

/* 1: as the model says. */
static int groups_agree(omendb_txn *txn, const struct groups_case *terms,
                        const omendb_filter *filter, uint64_t seed)
{
    static struct asking_hit sorted[ASKING_MANY], taken[ASKING_MANY];
    omendb_query query = OMENDB_QUERY_INIT;
    float vector[ASKING_DIM];
    size_t count = 0, within = 0;
    support_vector(seed, ASKING_DIM, vector);
    const size_t all = asking_sort(vector, terms->filtered ? 30 : 100, sorted);
    while (within < all && (terms->radius == 0.0f || sorted[within].distance <= terms->radius))
        within++;
    const size_t expected =
        groups_expect(sorted, within, terms->field, terms->size, terms->k, taken);
    query.vector = vector;
    query.k = terms->k;
    query.exact = (uint32_t)terms->exact;
    query.group_by = terms->field;
    query.group_size = terms->size == 1 ? 0 : terms->size;
    query.filter = terms->filtered ? filter : NULL;
    query.use_radius = terms->radius != 0.0f;
    query.radius = terms->radius;
    if (omendb_search(asking.docs, txn, &query, groups_ids, groups_distances, &count) !=
        OMENDB_OK) {
        fprintf(stderr, "    %s\n", omendb_errmsg());
        return 0;
    }
    int same = count == expected;
    for (size_t i = 0; i < count && same && terms->exact; i++)
        same = groups_ids[i] == taken[i].id && groups_distances[i] == taken[i].distance;
    if (!terms->exact) /* what texts of arrays leave room for depends on which come first */
        same = groups_are_sound(count, terms->field, terms->size) &&
               (terms->radius != 0.0f || strcmp(terms->field, "tags") == 0 || count == expected);
    if (!same)
        fprintf(stderr,
                "    by %s, %zu each, k %zu, filtered %d, exact %d, radius %g: %zu of %zu\n",
                terms->field, terms->size, terms->k, terms->filtered, terms->exact,
                (double)terms->radius, count, expected);
    return same;
}

static int groups_all_agree(omendb_txn *txn, const omendb_filter *filter)
{
    static const char *const fields[] = {"doc", "tags", "size", "_key"};
    static const size_t sizes[] = {1, 2, 7}, ks[] = {1, 3, 10, 60, 400, 5000};
    int agree = 1;
    for (size_t f = 0; f < 4; f++)
        for (size_t s = 0; s < 3; s++)
            for (size_t k = 0; k < 6; k++)
                for (int other = 0; other < 8; other++) {
                    const struct groups_case terms = {fields[f],     sizes[s],
                                                      ks[k],         other % 2,
                                                      other / 2 % 2, other / 4 ? 60.0f : 0.0f};
                    agree &= groups_agree(txn, &terms, filter, 77 + f * 10 + k);
                }
    return agree;
}

TEST(groups_are_what_all_records_in_order_give)
{
    omendb_filter *filter = NULL;
    omendb_txn *txn = NULL;
    CHECK_EQ_INT(asking_open("groups", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_fill(), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_compile(asking.db, "size < 30 OR size > 1000", &filter), OMENDB_OK);
    CHECK(groups_all_agree(NULL, filter));
    CHECK_EQ_INT(omendb_txn_begin(asking.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(asking_change(txn, 5, ASKING_MANY, 29, 2), OMENDB_OK);
    CHECK(groups_all_agree(txn, filter));
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(asking.db, NULL, NULL), OMENDB_OK);
    CHECK(groups_all_agree(NULL, filter));
    omendb_filter_free(filter);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

/* Of 3000 records all but 20 have one value, and the others are far away. */
TEST(a_value_that_most_have_costs_rounds_not_hits)
{
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint64_t ids[20];
    size_t count = 0;
    CHECK_EQ_INT(asking_open("skewed", 0), OMENDB_OK);
    for (uint64_t id = 0; id < ASKING_MANY; id++) {
        omendb_record record = OMENDB_RECORD_INIT;
        char json[64];
        float vector[ASKING_DIM];
        support_vector(id, ASKING_DIM, vector);
        vector[0] += id % 150 == 0 ? 1000.0f : 0.0f;
        snprintf(json, sizeof json, "{\"doc\": %llu}", id % 150 == 0 ? (unsigned long long)id : 1);
        record.id = id;
        record.vector = vector;
        record.metadata = json;
        CHECK_EQ_INT(omendb_add(asking.docs, NULL, &record, NULL), OMENDB_OK);
    }
    CHECK_EQ_INT(omendb_optimize(asking.db, NULL, NULL), OMENDB_OK);
    float vector[ASKING_DIM] = {0};
    query.vector = vector;
    query.k = 20;
    query.group_by = "doc";
    query.explain = &explain;
    for (uint32_t exact = 0; exact < 2; exact++) {
        query.exact = exact;
        CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_OK);
        CHECK_EQ_INT(count, 20);
        CHECK_EQ_INT(explain.segments, 2); /* rounds, of one segment */
        for (size_t i = 1; i < count; i++)
            CHECK_EQ_INT(ids[i] % 150, 0);
    }
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

/* Conditions of every shape stand beside that of the groups. */
TEST(groups_go_with_any_filter)
{
    static const char *const texts[] = {"TRUE",
                                        "FALSE",
                                        "size < 50",
                                        "size < 50 AND size >= 10",
                                        "size < 20 OR size > 80",
                                        "NOT (size < 20 OR size > 80)",
                                        "(size < 20 OR size > 80) AND (size < 10 OR size > 50)",
                                        "(size < 9 AND _id > 100) OR size = 50",
                                        "{}",
                                        "1 = 2 OR ?1 = 3",
                                        "doc IS NOT NULL",
                                        "NOT doc = 'd00'"};
    static struct asking_hit sorted[ASKING_MANY], matching[ASKING_MANY], taken[ASKING_MANY];
    float vector[ASKING_DIM] = {1, 2, 3};
    CHECK_EQ_INT(asking_open("shapes", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_fill(), OMENDB_OK);
    const size_t all = asking_sort(vector, 100, sorted);
    for (size_t t = 0; t < sizeof texts / sizeof texts[0]; t++) {
        static uint64_t ids[ASKING_MANY];
        static uint8_t passes[ASKING_MANY];
        omendb_filter *filter = NULL;
        omendb_query query = OMENDB_QUERY_INIT;
        size_t count = 0, match = 0;
        CHECK_EQ_INT(omendb_filter_compile(asking.db, texts[t], &filter), OMENDB_OK);
        query.vector = vector;
        query.filter = filter;
        query.exact = 1;
        query.k = ASKING_MANY;
        CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_OK);
        memset(passes, 0, sizeof passes);
        for (size_t i = 0; i < count; i++)
            passes[ids[i]] = 1;
        for (size_t i = 0; i < all; i++)
            if (passes[sorted[i].id])
                matching[match++] = sorted[i];
        const size_t expected = groups_expect(matching, match, "doc", 2, 100, taken);
        query.k = 100;
        query.group_by = "doc";
        query.group_size = 2;
        CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_OK);
        CHECK_EQ_INT(count, expected);
        for (size_t i = 0; i < count; i++)
            CHECK_EQ_INT(ids[i], taken[i].id);
        omendb_filter_free(filter);
    }
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

static int groups_is_even(void *context, uint64_t id)
{
    (void)context;
    return id % 2 == 0;
}

TEST(groups_of_a_batch_are_those_of_each_query)
{
    float vectors[40 * ASKING_DIM];
    uint64_t ids[40 * 10], alone[10];
    size_t counts[40], count = 0;
    omendb_query query = OMENDB_QUERY_INIT;
    CHECK_EQ_INT(asking_open("batch", 2), OMENDB_OK);
    CHECK_EQ_INT(asking_fill(), OMENDB_OK);
    for (uint64_t i = 0; i < 40; i++)
        support_vector(i + 500, ASKING_DIM, vectors + i * ASKING_DIM);
    query.exact = 1;
    query.group_by = "tags";
    query.match = groups_is_even;
    CHECK_EQ_INT(omendb_search_batch(asking.docs, NULL, &query, vectors, 40, ids, NULL, counts),
                 OMENDB_OK);
    for (size_t i = 0; i < 40; i++) {
        query.vector = vectors + i * ASKING_DIM;
        CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, alone, NULL, &count), OMENDB_OK);
        CHECK_EQ_INT(counts[i], count);
        for (size_t j = 0; j < 10; j++)
            CHECK(j < count ? ids[i * 10 + j] == alone[j] && alone[j] % 2 == 0
                            : ids[i * 10 + j] == OMENDB_ID_AUTO);
    }
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

TEST(groups_that_make_no_sense_are_refused)
{
    omendb_query query = OMENDB_QUERY_INIT;
    char name[300];
    float vector[ASKING_DIM] = {1};
    uint64_t ids[10];
    size_t count = 0;
    CHECK_EQ_INT(asking_open("refused", 0), OMENDB_OK);
    query.vector = vector;
    query.group_size = 2;
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_INVALID);
    query.group_by = "";
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_INVALID);
    query.group_by = "\xff";
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_INVALID);
    memset(name, 'a', sizeof name);
    name[OMENDB_FIELD_MAX + 1] = '\0';
    query.group_by = name;
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_INVALID);
    name[OMENDB_FIELD_MAX] = '\0';
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 0);
    query.k = SIZE_MAX;
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(asking_put(NULL, 1, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 1);
    query.group_by = "_id";
    CHECK_EQ_INT(omendb_search(asking.docs, NULL, &query, ids, NULL, &count), OMENDB_OK);
    CHECK_EQ_INT(count, 1);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

TEST_MAIN(groups_are_what_all_records_in_order_give, a_value_that_most_have_costs_rounds_not_hits,
          groups_go_with_any_filter, groups_of_a_batch_are_those_of_each_query,
          groups_that_make_no_sense_are_refused)
