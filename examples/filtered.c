/* filtered.c: keys, metadata and filters on real data; groups, facets, examples and pages.
 *
 *     cc -std=c11 -I. examples/filtered.c omendb.c -o filtered -lm -lpthread
 *     ./filtered [DIRECTORY [DATA]]
 *
 * 5,000 Debian packages (data/README.md). Each is stored under its name as the key, with what the
 * package lists say of it as metadata: section, priority, installed size, tags, whether it is
 * essential. The program then keeps nothing: what it prints comes from the database. It exits with
 * 1 if an answer is wrong, and may be run again on the same directory. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "omendb.h"

enum { DIM = 384, SCALE = 480, BATCH = 500, K = 3, NAME = 256, METADATA = 2048 };

struct package {
    char name[NAME];
    char metadata[METADATA];
    int8_t vector[DIM];
};

static void check(int code, const char *what)
{
    if (code != OMENDB_OK) {
        fprintf(stderr, "%s: %s\n", what, omendb_errmsg());
        exit(1);
    }
}

static void expect(int truth, const char *promise)
{
    if (!truth) {
        fprintf(stderr, "NOT TRUE: %s\n", promise);
        exit(1);
    }
}

static FILE *open_data(const char *folder, const char *name)
{
    char path[1024];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr,
                "%s: cannot be opened; give the folder of the data as the second argument\n", path);
        exit(1);
    }
    return file;
}

/* Returns 0 at the end of the data. */
static int read_package(FILE *texts, FILE *fields, FILE *vectors, struct package *package)
{
    char line[NAME];

    if (fgets(line, sizeof line, texts) == NULL) {
        return 0;
    }
    expect(sscanf(line, "%255[^\t]", package->name) == 1 &&
               fgets(package->metadata, METADATA, fields) != NULL &&
               fread(package->vector, 1, DIM, vectors) == DIM,
           "the data is as data/README.md says");
    return 1;
}

/* A package that has the key already, from an earlier run, is replaced and keeps its id. */
static size_t put_packages(omendb_collection *packages, const char *folder)
{
    static struct package batch[BATCH];
    static omendb_record records[BATCH];
    FILE *texts = open_data(folder, "packages.tsv"), *fields = open_data(folder, "packages.jsonl"),
         *vectors = open_data(folder, "packages.i8");
    size_t total = 0, count;

    do {
        for (count = 0; count < BATCH && read_package(texts, fields, vectors, &batch[count]);
             count++) {
            omendb_record_init(&records[count]);
            records[count].vector = batch[count].vector;
            records[count].vector_type = OMENDB_I8;
            records[count].key = batch[count].name;
            records[count].metadata = batch[count].metadata;
        }
        check(omendb_put_records(packages, NULL, count, records, NULL), "put");
        total += count;
    } while (count == BATCH);
    fclose(texts);
    fclose(fields);
    fclose(vectors);
    return total;
}

static void read_question(const char *folder, char text[NAME], int8_t vector[DIM])
{
    FILE *texts = open_data(folder, "questions.txt"), *vectors = open_data(folder, "questions.i8");

    expect(fgets(text, NAME, texts) != NULL && fread(vector, 1, DIM, vectors) == DIM,
           "there is a question");
    text[strcspn(text, "\n")] = '\0';
    fclose(texts);
    fclose(vectors);
}

/* What a search found belongs to the state that it saw, so search and print_package are given the
 * same snapshot: without one a writer beside them might have deleted a hit before it is read. */
static omendb_txn *snapshot(omendb *db)
{
    omendb_txn *state;

    check(omendb_txn_begin(db, OMENDB_READ_ONLY, &state), "snapshot");
    return state;
}

static void print_package(omendb_collection *packages, omendb_txn *state, uint64_t id,
                          const char *field)
{
    const char *const fields[] = {"section", "installed_size", field};
    char key[OMENDB_KEY_MAX + 1], metadata[METADATA];

    check(omendb_get_key(packages, state, id, key, sizeof key, NULL), "get the key");
    check(omendb_get_metadata(packages, state, id, fields, 3, metadata, sizeof metadata, NULL),
          "get the metadata");
    printf("    %-20s %s\n", key, metadata);
}

/* The same question under one condition; filter: NULL: under none. */
static void ask(omendb *db, omendb_collection *packages, const char *condition,
                const omendb_filter *filter, const int8_t *vector, const char *like)
{
    omendb_txn *state = snapshot(db);
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint64_t ids[K];
    size_t found, i;

    query.vector = vector;
    query.vector_type = OMENDB_I8;
    query.key = like;
    query.k = K;
    query.filter = filter;
    query.explain = &explain;
    check(omendb_search(packages, state, &query, ids, NULL, &found), "search");
    expect(found == K, "as many hits as were asked for");
    printf("  %s (%.1f %% of the packages)\n", condition, 100 * (double)explain.selectivity);
    for (i = 0; i < found; i++) {
        print_package(packages, state, ids[i], "priority");
    }
    omendb_txn_rollback(state);
}

static void ask_under_conditions(omendb *db, omendb_collection *packages, const int8_t *vector)
{
    static const char *const conditions[] = {
        "section = 'sound'",
        "installed_size < 200 AND tags = 'interface::commandline'",
        "tags IN ('implemented-in::c', 'implemented-in::rust') AND section <> 'video'",
        "essential",
        "{\"$or\": [{\"section\": \"x11\"}, {\"tags\": {\"$prefix\": \"works-with::video\"}}]}",
    };
    omendb_filter *filter;
    size_t i;

    ask(db, packages, "all", NULL, vector, NULL);
    for (i = 0; i < sizeof conditions / sizeof *conditions; i++) {
        check(omendb_filter_compile(db, conditions[i], &filter), "compile");
        ask(db, packages, conditions[i], filter, vector, NULL);
        omendb_filter_free(filter);
    }
}

/* One filter for many values: parameters keep quotes in what users type from being read as a part
 * of the condition. What a record does not have is unknown, and NOT of that is, too: IS NOT TRUE
 * takes it for false. */
static void count_editors(omendb *db, omendb_collection *packages)
{
    static const struct {
        const char *section;
        int64_t size;
        uint64_t expected;
    } asked[] = {{"editors", 4000, 13}, {"games", 4000, 72}, {"o'clock", 4000, 0}};
    omendb_filter *filter;
    uint64_t count;
    size_t i;

    check(omendb_filter_compile(db,
                                "section = ?1 AND installed_size < ?2 AND "
                                "tags IN ('implemented-in::c', 'implemented-in::rust') AND "
                                "essential IS NOT TRUE",
                                &filter),
          "compile");
    for (i = 0; i < 3; i++) {
        check(omendb_filter_bind_text(filter, 1, asked[i].section), "bind");
        check(omendb_filter_bind_i64(filter, 2, asked[i].size), "bind");
        check(omendb_count_matching(packages, NULL, filter, NULL, NULL, &count), "count");
        printf("  %s in C or Rust, below %d KiB: %d packages\n", asked[i].section,
               (int)asked[i].size, (int)count);
        expect(count == asked[i].expected, "as many packages as in the data");
    }
    omendb_filter_free(filter);
}

/* What a page of results shows beside them: how many packages of each section match, of the largest
 * sections. And in place of the nearest packages, of which many may be of one section, the best one
 * of each of the nearest sections. */
static void ask_by_section(omendb *db, omendb_collection *packages, const int8_t *vector)
{
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_facet section = OMENDB_FACET_INIT;
    omendb_filter *filter;
    omendb_facets *sections;
    omendb_txn *state = snapshot(db);
    uint64_t ids[K], matching, different;
    size_t found, i;

    check(omendb_filter_compile(db, "tags = 'interface::graphical'", &filter), "compile");
    check(omendb_facets_open(packages, state, filter, NULL, NULL, "section", K, &sections),
          "facets");
    check(omendb_facets_totals(sections, &matching, NULL, &different), "totals");
    printf("  %d graphical packages in %d sections:", (int)matching, (int)different);
    while (omendb_facets_next(sections, &section) == OMENDB_OK) {
        printf(" %s %d", section.text, (int)section.count);
    }
    printf(" ...\n");
    omendb_facets_close(sections);
    expect(matching == 1475 && different == 37, "as many packages and sections as in the data");

    query.vector = vector;
    query.vector_type = OMENDB_I8;
    query.k = K;
    query.filter = filter;
    query.group_by = "section";
    check(omendb_search(packages, state, &query, ids, NULL, &found), "search by groups");
    expect(found == K, "as many sections as were asked for");
    for (i = 0; i < found; i++) {
        print_package(packages, state, ids[i], "priority");
    }
    omendb_txn_rollback(state);
    omendb_filter_free(filter);
}

static uint64_t id_of(omendb_collection *packages, omendb_txn *state, const char *key)
{
    uint64_t id = OMENDB_ID_AUTO;

    check(omendb_find(packages, state, key, &id), "find");
    return id;
}

/* More like these, and not like that. */
static void ask_by_examples(omendb *db, omendb_collection *packages)
{
    omendb_txn *state = snapshot(db);
    const uint64_t liked[] = {id_of(packages, state, "vim"), id_of(packages, state, "emacs")};
    const uint64_t disliked[] = {id_of(packages, state, "libreoffice-writer")};
    omendb_query query = OMENDB_QUERY_INIT;
    uint64_t ids[K];
    size_t found, i;

    query.positive_ids = liked;
    query.positive_count = 2;
    query.negative_ids = disliked;
    query.negative_count = 1;
    query.k = K;
    check(omendb_search(packages, state, &query, ids, NULL, &found), "search by examples");
    printf("  like vim and emacs, unlike libreoffice-writer\n");
    for (i = 0; i < found; i++) {
        expect(ids[i] != liked[0] && ids[i] != liked[1], "examples are no hits");
        print_package(packages, state, ids[i], "priority");
    }
    omendb_txn_rollback(state);
}

/* The pages are of one state of the database, whatever is written while somebody reads them; a
 * snapshot holds it for the metadata of the hits, too. */
static void turn_pages(omendb *db, omendb_collection *packages, const int8_t *vector)
{
    omendb_query query = OMENDB_QUERY_INIT;
    omendb_filter *filter;
    omendb_pages *pages;
    omendb_txn *state = snapshot(db);
    uint64_t ids[K], matching;
    size_t found, total = 0, i;
    int page;

    check(omendb_filter_compile(db, "tags = 'works-with::video'", &filter), "compile");
    check(omendb_count_matching(packages, state, filter, NULL, NULL, &matching), "count");
    query.vector = vector;
    query.vector_type = OMENDB_I8;
    query.filter = filter;
    check(omendb_pages_open(packages, state, &query, &pages), "open pages");
    for (page = 1; omendb_pages_next(pages, K, 0, ids, NULL, &found) == OMENDB_OK; page++) {
        total += found;
        for (i = 0; i < found && page <= 2; i++) {
            printf("  page %d", page);
            print_package(packages, state, ids[i], "priority");
        }
    }
    omendb_pages_close(pages);
    omendb_txn_rollback(state);
    omendb_filter_free(filter);
    printf("  %d packages about video on %d pages\n", (int)total, page - 1);
    expect(total == matching, "each package that matches comes once");
}

/* Marks some packages, finds those that are like one of them and marked, and deletes the marked. */
static void mark_and_delete(omendb *db, omendb_collection *packages)
{
    static const char *const names[] = {"vim", "emacs", "nano", "gimp"};
    omendb_filter *filter;
    omendb_rows *rows;
    omendb_txn *state;
    uint64_t id, deleted, count;
    size_t i;

    for (i = 0; i < 4; i++) {
        check(omendb_find(packages, NULL, names[i], &id), "find");
        check(omendb_update(packages, NULL, id, "{\"installed\": true}"), "update");
    }
    check(omendb_filter_compile(db, "installed", &filter), "compile");
    ask(db, packages, "like nano, installed", filter, NULL, "nano");
    state = snapshot(db);
    check(omendb_scan_matching(packages, state, filter, 0, OMENDB_ID_AUTO - 1, &rows), "scan");
    while (omendb_rows_next(rows, &id, OMENDB_F32, NULL) == OMENDB_OK) {
        print_package(packages, state, id, "installed");
    }
    omendb_rows_close(rows);
    omendb_txn_rollback(state);
    check(omendb_delete_matching(packages, NULL, filter, NULL, NULL, &deleted), "delete");
    omendb_filter_free(filter);
    check(omendb_count(packages, NULL, &count), "count");
    printf("  %d deleted, %d packages left\n", (int)deleted, (int)count);
    expect(deleted == 4 && omendb_find(packages, NULL, "vim", &id) == OMENDB_NOTFOUND,
           "the marked ones are gone");
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "filtered.omen";
    const char *data = argc > 2 ? argv[2] : "examples/data";
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb *db;
    omendb_collection *packages;
    char question[NAME];
    int8_t vector[DIM];

    schema.dim = DIM;
    schema.metric = OMENDB_COSINE;
    schema.scalar = OMENDB_I8;
    schema.scale = SCALE;
    check(omendb_open(path, NULL, &db), "open");
    check(omendb_collection_open_or_create(db, "packages", &schema, &packages), "collection");
    printf("%d packages stored\n", (int)put_packages(packages, data));
    read_question(data, question, vector);
    printf("\"%s\"\n", question);
    ask_under_conditions(db, packages, vector);
    printf("By sections, examples and pages\n");
    ask_by_section(db, packages, vector);
    ask_by_examples(db, packages);
    turn_pages(db, packages, vector);
    printf("Counting\n");
    count_editors(db, packages);
    printf("Marking and deleting\n");
    mark_and_delete(db, packages);
    omendb_collection_close(packages);
    check(omendb_close(db), "close");
    return 0;
}
