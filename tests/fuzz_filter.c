/* fuzz_filter.c: bytes as a filter, in text or in JSON. What is compiled keeps the promises of
 * filter.h, and evaluation from leaf to leaf gives what the nodes say, on a few records, with
 * parameters unbound and bound.
 *
 * The first byte chooses what parameters are bound to, the others are the filter. */
#include "fuzz.h"
#include "fuzz_database.h"
#include "amalgamation/filter.h"

#define FUZZ_FILTER_RECORDS 5

static const char *const fuzz_filter_metadata[FUZZ_FILTER_RECORDS] = {
    NULL, "{\"a\":1,\"b\":\"text\",\"c\":[\"c\",\"rust\"],\"d\":true}",
    "{\"a\":0.5,\"b\":null,\"c\":[],\"d\":false}",
    "{\"a\":\"a\",\"b\":[\"a\"],\"c\":\"c\",\"d\":9007199254740993}",
    "{\"a\":-9223372036854775808,\"b\":\"\",\"c\":1e300,\"d\":0}"};

static int fuzz_filter_leaf(const omendb_filter *filter, uint32_t number, uint64_t id,
                            const uint8_t *document)
{
    struct filter_leaf leaf = filter->leaves[number];
    omendb_filter one = *filter;
    leaf.if_true = FILTER_MATCH;
    leaf.if_false = FILTER_MISS;
    one.leaves = &leaf;
    return filter_matches(&one, id, document);
}

/* By the nodes, from the last to the first: what is below a node is known before it. */
static int fuzz_filter_by_nodes(const omendb_filter *filter, uint64_t id, const uint8_t *document)
{
    uint8_t *holds = fuzz_memory(NULL, filter->node_count);
    for (size_t i = filter->node_count; i-- > 0;) {
        const struct filter_node *node = &filter->nodes[i];
        const int is_and = node->kind == FILTER_AND;
        if (node->kind == FILTER_LEAF) {
            holds[i] = (uint8_t)fuzz_filter_leaf(filter, node->leaf, id, document);
            continue;
        }
        holds[i] = (uint8_t)is_and;
        for (uint32_t child = (uint32_t)i + 1; child < node->end; child = filter->nodes[child].end)
            if (holds[child] != is_and)
                holds[i] = (uint8_t)!is_and;
    }
    const int whole = holds[0];
    free(holds);
    return whole;
}

static void fuzz_filter_evaluate(const omendb_filter *filter, struct memory *memory)
{
    for (size_t i = 0; i < FUZZ_FILTER_RECORDS; i++) {
        const char *json = fuzz_filter_metadata[i];
        const uint64_t id = i == 0 ? UINT64_MAX - 1 : i;
        uint8_t *document = NULL;
        size_t size = 0;
        FUZZ_CHECK(document_create(memory, i % 2 ? "key" : NULL, i % 2 ? 3 : 0, json,
                                   json == NULL ? 0 : strlen(json), &document, &size) == OMENDB_OK);
        FUZZ_CHECK(filter_matches(filter, id, document) ==
                   fuzz_filter_by_nodes(filter, id, document));
        memory_free(memory, document, size);
    }
}

static void fuzz_filter_bind(omendb_filter *filter, uint8_t choice)
{
    static const char *const texts[] = {"c", "a%", "", "c"};
    const struct filter_operand number = {
        .value = {.type = DOCUMENT_REAL, .real = 1.8446744073709552e19}, .beyond = UINT64_MAX - 1};
    for (size_t i = 0; i < filter->parameter_count && i < 64; i++) {
        const int index = (int)i + 1;
        switch ((choice + i) % 4) {
        case 0:
            fuzz_sane(filter_bind(filter, index, &number));
            break;
        case 1:
            fuzz_sane(filter_bind_text(filter, index, texts[choice / 4 % 4]));
            break;
        case 2:
            fuzz_sane(filter_bind_texts(filter, index, texts, choice / 4 % 5));
            break;
        default:
            break;
        }
    }
}

static void fuzz_filter_check(const omendb_filter *filter)
{
    FUZZ_CHECK(filter->leaf_count > 0 && filter->nodes[0].end == filter->node_count);
    for (uint32_t i = 0; i < filter->node_count; i++) {
        const struct filter_node *node = &filter->nodes[i];
        uint32_t children = 0, child = i + 1;
        for (; child < node->end; child = filter->nodes[child].end, children++)
            FUZZ_CHECK(filter->nodes[child].kind != node->kind);
        FUZZ_CHECK(child == node->end && (node->kind == FILTER_LEAF) == (children == 0));
        FUZZ_CHECK(children != 1);
    }
    for (uint32_t i = 0; i < filter->leaf_count; i++)
        FUZZ_CHECK(filter->leaves[i].if_true > i && filter->leaves[i].if_false > i);
}

static int fuzz_filter_run(const uint8_t *data, size_t size)
{
    struct memory memory;
    omendb_filter *filter = NULL;
    const uint8_t choice = size > 0 ? data[0] : 0;
    char *text = fuzz_memory(NULL, size + 1);
    memory_init(&memory, &fuzz_allocator, 0);
    if (size > 1)
        memcpy(text, data + 1, size - 1);
    text[size > 1 ? size - 1 : 0] = '\0';
    const int code = fuzz_sane(filter_compile(&memory, text, &filter));
    free(text);
    FUZZ_CHECK((code == OMENDB_OK) == (filter != NULL));
    if (code == OMENDB_OK) {
        fuzz_filter_check(filter);
        fuzz_filter_evaluate(filter, &memory);
        fuzz_filter_bind(filter, choice);
        fuzz_filter_evaluate(filter, &memory);
    }
    filter_free(filter);
    FUZZ_CHECK(memory.used == 0);
    return code == OMENDB_OK;
}

static void fuzz_filter_seed(struct fuzz_seeds *seeds)
{
    static const char *const texts[] = {
        "1NOT (a.b = -1.5e3 AND \"q\"\"\" IN ('it''s', ?1, :name)) OR a BETWEEN 1 AND 2",
        "2a IN ?1 OR b NOT IN (?1, ?) AND 'c' IN c OR ?2 IS NULL OR _id IN (1, 2, 3)",
        "3b LIKE 'te!%%' ESCAPE '!' OR b NOT LIKE ? OR d AND NOT d OR a IS NOT TRUE",
        "0_id > 18446744073709551612 AND _key >= 'k' OR c CONTAINS 'rust' OR 5 <= a",
        "4a <> NULL OR b NOT BETWEEN NULL AND 'x' OR TRUE AND NOT FALSE OR a = .5 OR d == 0",
        "5{\"$or\":[{\"a\":{\"$lt\":3,\"$gte\":-1e3}},{\"$not\":{\"b\":\"t\\u00e9\\ud83d\\ude00\"}}"
        "]}",
        "6{\"c\":{\"$in\":[\"c\",{\"$param\":1}]},\"_id\":{\"$nin\":{\"$param\":\"ids\"}}}",
        "7{\"$and\":[{},{\"a\":null,\"b\":{\"$exists\":true,\"$prefix\":\"te\"}}]}",
        "8{\"a\":{\"$between\":[0,1],\"$not\":{\"$eq\":1,\"$ne\":null}},\"c\":{\"$contains\":\"c\"}"
        "}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        fuzz_add_seed(seeds, (const uint8_t *)texts[i], strlen(texts[i]));
}

FUZZ_TARGET(filter, fuzz_mutate_bytes)

#undef FUZZ_FILTER_RECORDS
