/* test_hostile_keys.c: ids, keys, values and names that a user chose so that a hash without a seed
 * gives all of them the same number are as quick to store and to find as others.
 *
 * The hash is the one that stands in the documents for names: it is inverted here. Processor time
 * is compared with that for ordinary texts; with an unkeyed hash it is a hundred times as much. */
#include "internals.h"

#include <time.h>

#include "support.h"
#include "test.h"

#define HOSTILE_DIM    2
#define HOSTILE_BYTES  17 /* of a text, with its NUL */
#define HOSTILE_COUNT  16000
#define HOSTILE_FIELDS 400
#define HOSTILE_NAMED  1000 /* records of so many fields */
#define HOSTILE_TIMES  8    /* as long as ordinary ones, */
#define HOSTILE_NOISE  0.15 /* and so many seconds */

static struct support_random hostile_random;

/* A number whose bytes are all letters of ASCII. */
static uint64_t hostile_letters(void)
{
    uint64_t letters = 0;
    for (int i = 0; i < 8; i++)
        letters = letters << 8 | (support_below(&hostile_random, 2) * 32 + 'A' +
                                  support_below(&hostile_random, 26));
    return letters;
}

/* Two words; the second takes back what the first did to the sum. Most such words are no text. */
static void hostile_collide(char *text)
{
    const uint64_t factor = UINT64_C(0x9fb21c651e98df25), high = UINT64_C(0x8080808080808080);
    uint64_t first, second;
    int legal;
    do {
        first = hostile_letters();
        second = (16 * factor ^ first) * factor;
        second ^= second >> 32;
        legal = (second & high) == 0;
        for (int i = 0; i < 8; i++)
            legal &= (second >> (8 * i) & 0x7f) > ' ' && (second >> (8 * i) & 0xff) != '"' &&
                     (second >> (8 * i) & 0xff) != '\\' && (second >> (8 * i) & 0xff) != 0x7f;
    } while (!legal);
    memcpy(text, &first, sizeof first);
    memcpy(text + 8, &second, sizeof second);
    text[16] = '\0';
}

static void hostile_make(char (*texts)[HOSTILE_BYTES], size_t count, int collide)
{
    for (size_t i = 0; i < count; i++) {
        if (collide)
            hostile_collide(texts[i]);
        else
            snprintf(texts[i], HOSTILE_BYTES, "text%012zu", i);
    }
}

static double hostile_seconds(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

static const char *hostile_path(void)
{
    static char path[4352];
    if (path[0] == '\0')
        snprintf(path, sizeof path, "%s", support_path("hostile"));
    return path;
}

static void hostile_open(const char *path, omendb **db, omendb_collection **docs)
{
    omendb_options options = OMENDB_OPTIONS_INIT;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    options.threads = 0;
    options.sync = OMENDB_SYNC_OFF;
    schema.dim = HOSTILE_DIM;
    schema.M = 2;
    schema.ef_construction = 8;
    support_must(omendb_open(path, &options, db));
    support_must(omendb_collection_open_or_create(*db, "docs", &schema, docs));
}

static void hostile_put(omendb_collection *docs, omendb_txn *txn, uint64_t id, const char *key,
                        const char *metadata)
{
    static const float vector[HOSTILE_DIM];
    omendb_record record = OMENDB_RECORD_INIT;
    record.id = id;
    record.vector = vector;
    record.key = key;
    record.metadata = metadata;
    support_must(omendb_put(docs, txn, &record, NULL));
}

/* Adds them all in one transaction and finds each again, in the memtable and in a segment. */
static double hostile_time_of_keys(char (*keys)[HOSTILE_BYTES], int prepare)
{
    omendb *db;
    omendb_collection *docs;
    omendb_txn *txn;
    hostile_open(hostile_path(), &db, &docs);
    const double begun = hostile_seconds();
    support_must(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn));
    for (uint64_t i = 0; i < HOSTILE_COUNT; i++)
        hostile_put(docs, txn, i, keys[i], NULL);
    if (prepare) {
        support_must(omendb_txn_prepare(txn, "all"));
        support_must(omendb_commit_prepared(db, "all"));
    } else {
        support_must(omendb_txn_commit(txn));
    }
    for (int segment = 0; segment < 2; segment++) {
        for (uint64_t i = 0; i < HOSTILE_COUNT; i++) {
            uint64_t id = 0;
            support_must(omendb_find(docs, NULL, keys[i], &id));
            support_must(id == i ? OMENDB_OK : OMENDB_CORRUPT);
        }
        support_must(omendb_checkpoint(db));
    }
    const double taken = hostile_seconds() - begun;
    omendb_collection_close(docs);
    support_must(omendb_close(db));
    support_remove(hostile_path());
    return taken;
}

static int hostile_is_quick(double hostile, double ordinary)
{
    if (hostile <= HOSTILE_TIMES * ordinary + HOSTILE_NOISE)
        return 1;
    fprintf(stderr, "    %.2f s, ordinary ones %.2f s\n", hostile, ordinary);
    return 0;
}

static char hostile_texts[2][HOSTILE_COUNT][HOSTILE_BYTES];

static void hostile_make_texts(void)
{
    hostile_random.state = 5;
    hostile_make(hostile_texts[0], HOSTILE_COUNT, 0);
    hostile_make(hostile_texts[1], HOSTILE_COUNT, 1);
}

TEST(the_texts_have_one_hash_without_a_seed_and_different_ones_with_it)
{
    struct hash_seed seed = {{1, 2}};
    struct hash_seed other = {{1, 3}};
    hostile_make_texts();
    for (size_t i = 1; i < HOSTILE_COUNT; i++) {
        const uint8_t *before = (const uint8_t *)hostile_texts[1][i - 1],
                      *text = (const uint8_t *)hostile_texts[1][i];
        CHECK(document_hash_name(text, 16) == document_hash_name(before, 16));
        CHECK(hash_bytes(&seed, text, 16) != hash_bytes(&seed, before, 16));
        CHECK(hash_bytes(&seed, text, 16) != hash_bytes(&other, text, 16));
    }
}

TEST(keys_of_one_hash_are_added_and_found_as_fast_as_others)
{
    for (int prepare = 0; prepare < 2; prepare++) {
        const double ordinary = hostile_time_of_keys(hostile_texts[0], prepare);
        CHECK(hostile_is_quick(hostile_time_of_keys(hostile_texts[1], prepare), ordinary));
    }
}

/* Of which idmap_mix makes `mixed`. */
static uint64_t hostile_unmix(uint64_t mixed)
{
    uint64_t value = mixed;
    value ^= value >> 31 ^ value >> 62;
    value *= UINT64_C(0x319642b2d24d8ec3);
    value ^= value >> 27 ^ value >> 54;
    value *= UINT64_C(0x96de1b173f119089);
    return value ^ value >> 30 ^ value >> 60;
}

/* Adds them in commits of a thousand and finds each again in the memtable. */
static double hostile_time_of_ids(int collide)
{
    static uint64_t ids[HOSTILE_COUNT];
    static float vectors[1000 * HOSTILE_DIM];
    omendb *db;
    omendb_collection *docs;
    for (uint64_t i = 0; i < HOSTILE_COUNT; i++)
        ids[i] = collide ? hostile_unmix(i << 20) : i;
    hostile_open(hostile_path(), &db, &docs);
    const double begun = hostile_seconds();
    for (size_t i = 0; i < HOSTILE_COUNT; i += 1000)
        support_must(omendb_put_batch(docs, NULL, 1000, ids + i, vectors, OMENDB_F32, NULL));
    for (size_t i = 0; i < HOSTILE_COUNT; i++)
        support_must(omendb_get(docs, NULL, ids[i], OMENDB_F32, NULL));
    const double taken = hostile_seconds() - begun;
    omendb_collection_close(docs);
    support_must(omendb_close(db));
    support_remove(hostile_path());
    return taken;
}

TEST(ids_of_one_hash_are_added_and_found_as_fast_as_others)
{
    const double ordinary = hostile_time_of_ids(0);
    CHECK(hostile_is_quick(hostile_time_of_ids(1), ordinary));
}

/* ------------------------------------------------------------------------------------------------
 * columns */

/* Of a checkpoint of so many records. */
static double hostile_time_of_columns(uint64_t records,
                                      void (*write)(int collide, uint64_t record, char *json),
                                      int collide)
{
    static char json[1 << 16];
    omendb *db;
    omendb_collection *docs;
    omendb_txn *txn;
    hostile_open(hostile_path(), &db, &docs);
    support_must(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn));
    for (uint64_t i = 0; i < records; i++) {
        write(collide, i, json);
        hostile_put(docs, txn, i, NULL, json);
    }
    support_must(omendb_txn_commit(txn));
    const double begun = hostile_seconds();
    support_must(omendb_checkpoint(db));
    const double taken = hostile_seconds() - begun;
    omendb_collection_close(docs);
    support_must(omendb_close(db));
    support_remove(hostile_path());
    return taken;
}

static void hostile_write_text(int collide, uint64_t record, char *json)
{
    sprintf(json, "{\"a\":\"%s\"}", hostile_texts[collide][record]);
}

/* Those that collide differ in the high bits of what is made of them. */
static void hostile_write_number(int collide, uint64_t record, char *json)
{
    const uint64_t number = collide ? hostile_unmix(record << 20) - DOCUMENT_INTEGER : record;
    const long long value = (long long)(int64_t)number;
    sprintf(json, "{\"a\":%lld,\"b\":%lld,\"c\":%lld,\"d\":%lld}", value, value, value, value);
}

static void hostile_write_names(int collide, uint64_t record, char *json)
{
    char *at = json;
    for (int i = 0; i < HOSTILE_FIELDS; i++)
        at += sprintf(at, "%c\"%s\":%d", i == 0 ? '{' : ',', hostile_texts[collide][i],
                      (int)(record % 3));
    sprintf(at, "}");
}

TEST(columns_of_texts_of_one_hash_are_made_as_fast_as_others)
{
    const double ordinary = hostile_time_of_columns(HOSTILE_COUNT, hostile_write_text, 0);
    CHECK(
        hostile_is_quick(hostile_time_of_columns(HOSTILE_COUNT, hostile_write_text, 1), ordinary));
}

TEST(columns_of_numbers_of_one_hash_are_made_as_fast_as_others)
{
    CHECK(idmap_mix(hostile_unmix(77 << 20)) == 77 << 20);
    const double ordinary = hostile_time_of_columns(HOSTILE_COUNT, hostile_write_number, 0);
    CHECK(hostile_is_quick(hostile_time_of_columns(HOSTILE_COUNT, hostile_write_number, 1),
                           ordinary));
}

TEST(columns_of_names_of_one_hash_are_made_as_fast_as_others)
{
    const double ordinary = hostile_time_of_columns(HOSTILE_NAMED, hostile_write_names, 0);
    CHECK(
        hostile_is_quick(hostile_time_of_columns(HOSTILE_NAMED, hostile_write_names, 1), ordinary));
}

/* ------------------------------------------------------------------------------------------------
 * seeds */

/* The paper's appendix A, and the first of the vectors of its authors' program. */
TEST(the_hash_is_siphash)
{
    uint8_t bytes[15];
    const struct hash_seed seed = {{UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)}};
    for (uint8_t i = 0; i < sizeof bytes; i++)
        bytes[i] = i;
    CHECK(hash_siphash(&seed, bytes, sizeof bytes, 2, 4) == UINT64_C(0xa129ca6149be45e5));
    CHECK(hash_siphash(&seed, bytes, 0, 2, 4) == UINT64_C(0x726fdb47dd0e0e31));
    for (size_t size = 0; size <= sizeof bytes; size++)
        CHECK(hash_bytes(&seed, bytes, size) == hash_siphash(&seed, bytes, size, 1, 3));
    CHECK(hash_number(&seed, UINT64_C(0x0706050403020100)) == hash_bytes(&seed, bytes, 8));
}

TEST(each_opening_has_its_own_seed_and_reads_segments_of_all_others)
{
    omendb *db;
    omendb_collection *docs;
    struct hash_seed seeds[6];
    for (uint64_t turn = 0; turn < 6; turn++) {
        hostile_open(hostile_path(), &db, &docs);
        seeds[turn] = db->hash_seed;
        for (uint64_t i = 0; i < turn; i++)
            CHECK(memcmp(&seeds[i], &seeds[turn], sizeof seeds[i]) != 0);
        for (uint64_t i = 0; i < 20; i++)
            hostile_put(docs, NULL, turn * 20 + i, hostile_texts[0][turn * 20 + i], NULL);
        if (turn == 3)
            support_must(omendb_optimize(db, NULL, NULL));
        support_must(omendb_checkpoint(db));
        for (uint64_t i = 0; i < turn * 20 + 20; i++) {
            uint64_t id = 0;
            CHECK_EQ_INT(omendb_find(docs, NULL, hostile_texts[0][i], &id), OMENDB_OK);
            CHECK(id == i);
        }
        CHECK_EQ_INT(support_check(db), 0);
        omendb_collection_close(docs);
        support_must(omendb_close(db));
    }
    support_remove(hostile_path());
}

TEST_MAIN(the_texts_have_one_hash_without_a_seed_and_different_ones_with_it,
          keys_of_one_hash_are_added_and_found_as_fast_as_others,
          ids_of_one_hash_are_added_and_found_as_fast_as_others,
          columns_of_texts_of_one_hash_are_made_as_fast_as_others,
          columns_of_numbers_of_one_hash_are_made_as_fast_as_others,
          columns_of_names_of_one_hash_are_made_as_fast_as_others, the_hash_is_siphash,
          each_opening_has_its_own_seed_and_reads_segments_of_all_others)
