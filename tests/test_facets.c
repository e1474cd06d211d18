/* test_facets.c: counts by the values of a field are those of a model, whether columns tell them or
 * documents do, under filters, in transactions and after deletions. */
#include "asking.h"

#define FACETS_CODES 3000 /* values of the model are below */

/* The text of a value of the model, as a facet tells it. */
static void facets_name(const char *field, uint64_t code, char name[32])
{
    if (strcmp(field, "tags") == 0)
        snprintf(name, 32, "t%02llu", (unsigned long long)code);
    else if (strcmp(field, "size") == 0)
        snprintf(name, 32, "=%llu", (unsigned long long)code);
    else if (code < 1000)
        snprintf(name, 32, "d%02llu", (unsigned long long)code);
    else if (code < 2000)
        snprintf(name, 32, "%s",
                 code == 1005   ? "=5"
                 : code == 1007 ? "=-7"
                 : code == 1002 ? "=2.5"
                                : "=1e+300");
    else
        snprintf(name, 32, "%s", code == 2000 ? "false" : "true");
}

static void facets_told(const omendb_facet *facet, char name[32])
{
    if (facet->type == OMENDB_VALUE_TEXT)
        snprintf(name, 32, "%s", facet->text);
    else if (facet->type == OMENDB_VALUE_BOOL)
        snprintf(name, 32, "%s", facet->i64 != 0 ? "true" : "false");
    else if (facet->type == OMENDB_VALUE_I64)
        snprintf(name, 32, "=%lld", (long long)facet->i64);
    else
        snprintf(name, 32, "=%g", facet->f64);
}

/* In the order of values: false, true, numbers, texts. */
static int facets_compare(const omendb_facet *a, const omendb_facet *b)
{
    const int kinds[] = {0, 0, 1, 1, 2};
    if (kinds[a->type] != kinds[b->type])
        return kinds[a->type] - kinds[b->type];
    if (a->type == OMENDB_VALUE_TEXT)
        return strcmp(a->text, b->text);
    return (a->f64 > b->f64) - (a->f64 < b->f64);
}

struct facets_model {
    uint64_t counts[FACETS_CODES], records, nulls, values;
};

static void facets_expect(const char *field, uint64_t below, struct facets_model *model)
{
    memset(model, 0, sizeof *model);
    for (uint64_t id = 0; id < ASKING_MANY; id++) {
        const struct asking_field values = asking_field_of(id, field);
        if (!asking.records[id].live || asking.records[id].size >= below)
            continue;
        model->records++;
        model->nulls += (uint64_t)values.is_null;
        for (int v = 0; v < values.count; v++) {
            int twice = 0;
            for (int w = 0; w < v; w++)
                twice |= values.values[w] == values.values[v];
            model->values += !twice && model->counts[values.values[v]] == 0;
            model->counts[values.values[v]] += (uint64_t)!twice;
        }
    }
}

/* The count of the model; of a value that it lacks 0. */
static uint64_t facets_count_of(const struct facets_model *model, const char *field,
                                const char *name)
{
    char other[32];
    for (uint64_t code = 0; code < FACETS_CODES; code++) {
        facets_name(field, code, other);
        if (model->counts[code] != 0 && strcmp(name, other) == 0)
            return model->counts[code];
    }
    return 0;
}

static int facets_even(void *context, uint64_t id)
{
    (void)context;
    return id < ASKING_MANY;
}

static int facets_agree(omendb_txn *txn, const char *field, const omendb_filter *filter,
                        size_t limit)
{
    static struct facets_model model;
    omendb_facets *facets = NULL;
    omendb_facet facet = OMENDB_FACET_INIT, before = OMENDB_FACET_INIT;
    uint64_t records = 0, nulls = 0, values = 0;
    size_t told = 0;
    int agree = 1, status;
    facets_expect(field, filter != NULL ? 30 : 100, &model);
    if (omendb_facets_open(asking.docs, txn, filter, limit % 2 ? facets_even : NULL, NULL, field,
                           limit, &facets) != OMENDB_OK) {
        fprintf(stderr, "    %s\n", omendb_errmsg());
        return 0;
    }
    while ((status = omendb_facets_next(facets, &facet)) == OMENDB_OK) {
        char name[32];
        facets_told(&facet, name);
        agree &= facets_count_of(&model, field, name) == facet.count;
        agree &= told == 0 || before.count > facet.count ||
                 (before.count == facet.count && facets_compare(&before, &facet) < 0);
        before = facet;
        told++;
    }
    agree &= omendb_facets_totals(facets, &records, &nulls, &values) == OMENDB_OK;
    agree &= status == OMENDB_DONE && records == model.records && nulls == model.nulls;
    agree &= values == model.values;
    agree &= told == (limit != 0 && limit < model.values ? limit : model.values);
    omendb_facets_close(facets);
    if (!agree)
        fprintf(stderr, "    %s, filter %d, limit %zu: %zu told of %llu, %llu records, %llu null\n",
                field, filter != NULL, limit, told, (unsigned long long)model.values,
                (unsigned long long)records, (unsigned long long)nulls);
    return agree;
}

static int facets_all_agree(omendb_txn *txn, const omendb_filter *filter)
{
    static const char *const fields[] = {"doc", "tags", "size"};
    static const size_t limits[] = {0, 1, 7, 100};
    int agree = 1;
    for (size_t f = 0; f < 3; f++)
        for (size_t l = 0; l < 4; l++)
            agree &= facets_agree(txn, fields[f], NULL, limits[l]) &&
                     facets_agree(txn, fields[f], filter, limits[l]);
    return agree;
}

TEST(counts_are_those_of_the_records_that_match)
{
    omendb_filter *filter = NULL;
    omendb_txn *txn = NULL, *snapshot = NULL;
    CHECK_EQ_INT(asking_open("facets", 0), OMENDB_OK);
    CHECK(facets_agree(NULL, "doc", NULL, 0));
    CHECK_EQ_INT(asking_fill(), OMENDB_OK);
    CHECK_EQ_INT(omendb_filter_compile(asking.db, "size < 30", &filter), OMENDB_OK);
    CHECK(facets_all_agree(NULL, filter));
    CHECK_EQ_INT(omendb_txn_begin(asking.db, OMENDB_READ_WRITE, &txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_txn_begin(asking.db, OMENDB_READ_ONLY, &snapshot), OMENDB_OK);
    static struct asking_record records[ASKING_MANY];
    memcpy(records, asking.records, sizeof records);
    CHECK_EQ_INT(asking_change(txn, 5, ASKING_MANY, 29, 2), OMENDB_OK);
    CHECK(facets_all_agree(txn, filter));
    static struct asking_record changed[ASKING_MANY];
    memcpy(changed, asking.records, sizeof changed);
    CHECK_EQ_INT(omendb_txn_commit(txn), OMENDB_OK);
    CHECK_EQ_INT(omendb_optimize(asking.db, NULL, NULL), OMENDB_OK);
    memcpy(asking.records, records, sizeof records);
    CHECK(facets_all_agree(snapshot, filter));
    memcpy(asking.records, changed, sizeof changed);
    CHECK(facets_all_agree(NULL, filter));
    omendb_txn_rollback(snapshot);
    omendb_filter_free(filter);
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

/* The list is put in order many times on the way, and an array has thousands of texts, twice. */
TEST(many_values_are_counted_once_for_each_record)
{
    enum { VALUES = 3000, RECORDS = 12 };
    static char json[VALUES * 40];
    omendb_facets *facets = NULL;
    omendb_facet facet = OMENDB_FACET_INIT;
    uint64_t values = 0, told = 0;
    float vector[ASKING_DIM] = {1};
    CHECK_EQ_INT(asking_open("many", 0), OMENDB_OK);
    for (uint64_t id = 0; id < RECORDS; id++) {
        omendb_record record = OMENDB_RECORD_INIT;
        size_t at = (size_t)sprintf(json, "{\"tags\":[");
        for (int i = 0; i < 2 * VALUES; i++)
            at += (size_t)sprintf(json + at, "%s\"%d\"", i == 0 ? "" : ",", i * 7 % VALUES);
        sprintf(json + at, "]}");
        record.id = id;
        record.vector = vector;
        record.metadata = json;
        CHECK_EQ_INT(omendb_add(asking.docs, NULL, &record, NULL), OMENDB_OK);
    }
    for (int sealed = 0; sealed < 2; sealed++) {
        CHECK_EQ_INT(omendb_facets_open(asking.docs, NULL, NULL, NULL, NULL, "tags", 0, &facets),
                     OMENDB_OK);
        CHECK_EQ_INT(omendb_facets_totals(facets, NULL, NULL, &values), OMENDB_OK);
        CHECK_EQ_INT(values, VALUES);
        for (told = 0; omendb_facets_next(facets, &facet) == OMENDB_OK; told++)
            CHECK_EQ_INT(facet.count, RECORDS);
        CHECK_EQ_INT(told, VALUES);
        omendb_facets_close(facets);
        CHECK_EQ_INT(omendb_checkpoint(asking.db), OMENDB_OK);
    }
    CHECK_EQ_INT(asking_close(), OMENDB_OK);
}

TEST(facets_hold_the_database_open)
{
    omendb_facets *facets = NULL;
    omendb_facet facet = OMENDB_FACET_INIT;
    CHECK_EQ_INT(asking_open("held", 0), OMENDB_OK);
    CHECK_EQ_INT(asking_put(NULL, 1, 0), OMENDB_OK);
    CHECK_EQ_INT(omendb_facets_open(asking.docs, NULL, NULL, NULL, NULL, "", 0, &facets),
                 OMENDB_INVALID);
    CHECK_EQ_INT(omendb_facets_open(asking.docs, NULL, NULL, NULL, NULL, "_key", 0, &facets),
                 OMENDB_INVALID);
    CHECK_EQ_INT(omendb_facets_open(asking.docs, NULL, NULL, NULL, NULL, NULL, 0, &facets),
                 OMENDB_MISUSE);
    CHECK_EQ_INT(omendb_facets_open(asking.docs, NULL, NULL, NULL, NULL, "size", 0, &facets),
                 OMENDB_OK);
    omendb_collection_close(asking.docs);
    asking.docs = NULL;
    CHECK_EQ_INT(omendb_close(asking.db), OMENDB_BUSY);
    facet.struct_size = 8;
    CHECK_EQ_INT(omendb_facets_next(facets, &facet), OMENDB_MISUSE);
    struct {
        omendb_facet facet;
        uint64_t later[2];
    } large = {OMENDB_FACET_INIT, {0, 0}};
    large.facet.struct_size = sizeof large; /* of a later header */
    CHECK_EQ_INT(omendb_facets_next(facets, &large.facet), OMENDB_OK);
    CHECK_EQ_INT(large.facet.struct_size, sizeof large.facet);
    omendb_facet_init(&facet);
    CHECK_EQ_INT(omendb_facets_next(facets, &facet), OMENDB_DONE);
    omendb_release(asking.db);
    asking.db = NULL;
    CHECK_EQ_INT(omendb_facets_next(facets, &facet), OMENDB_MISUSE);
    omendb_facets_close(facets);
    support_remove(asking.path);
}

TEST_MAIN(counts_are_those_of_the_records_that_match, many_values_are_counted_once_for_each_record,
          facets_hold_the_database_open)
