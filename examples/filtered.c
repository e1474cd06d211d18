/* filtered.c: keys, metadata and filters on real data.
 *
 *     cc -std=c11 -I. examples/filtered.c omendb.c -o filtered -lm -lpthread
 *     ./filtered [DIRECTORY [DATA]]
 *
 * 5,000 Debian packages (data/README.md). Each is stored under its name as the key, with its
 * section and its description as metadata, and two fields that are made from the description: its
 * words, an array of texts, and its length. The program then keeps nothing: what it prints comes
 * from the database. It exits with 1 if an answer is wrong, and may be run again on the same
 * directory. */
#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "omendb.h"

enum { DIM = 384, SCALE = 480, BATCH = 500, K = 3, FIELD = 256, METADATA = 2048 };

struct package {
    char name[FIELD], section[FIELD], description[FIELD];
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

/* Appends a JSON string; `first` and `last` are of the text that it gets. */
static char *append_string(char *at, const char *first, const char *last)
{
    *at++ = '"';
    for (; first != last; first++) {
        if (*first == '"' || *first == '\\') {
            *at++ = '\\';
        }
        *at++ = *first;
    }
    *at++ = '"';
    return at;
}

static int is_letter(char letter)
{
    return isalnum((unsigned char)letter) || (unsigned char)letter >= 0x80;
}

/* Appends the words of a text as an array of JSON strings, in small letters. */
static char *append_words(char *at, char *text)
{
    char *end;

    *at++ = '[';
    for (; *text != '\0'; text = end) {
        for (end = text; is_letter(*end); end++) {
            *end = (char)tolower((unsigned char)*end);
        }
        if (end == text) {
            end++;
            continue;
        }
        if (at[-1] != '[') {
            *at++ = ',';
        }
        at = append_string(at, text, end);
    }
    *at++ = ']';
    return at;
}

/* {"section":"games","description":"...","length":17,"words":["play","chess"]}: a text of 255 bytes
 * needs at most twice its size, and its words at most four times. */
static void describe(struct package *package)
{
    char *at = package->metadata;
    const size_t length = strlen(package->description);
    char words[FIELD];

    strcpy(words, package->description);
    at += sprintf(at, "{\"section\":");
    at = append_string(at, package->section, package->section + strlen(package->section));
    at += sprintf(at, ",\"description\":");
    at = append_string(at, package->description, package->description + length);
    at += sprintf(at, ",\"length\":%d,\"words\":", (int)length);
    at = append_words(at, words);
    strcpy(at, "}");
}

/* Returns 0 at the end of the data. */
static int read_package(FILE *texts, FILE *vectors, struct package *package)
{
    char line[FIELD];

    if (fgets(line, sizeof line, texts) == NULL) {
        return 0;
    }
    expect(sscanf(line, "%255[^\t]\t%255[^\t]\t%255[^\n]", package->name, package->section,
                  package->description) == 3 &&
               fread(package->vector, 1, DIM, vectors) == DIM,
           "the data is as data/README.md says");
    describe(package);
    return 1;
}

/* A package that has the key already, from an earlier run, is replaced and keeps its id. */
static size_t put_packages(omendb_collection *packages, const char *folder)
{
    static struct package batch[BATCH];
    static omendb_record records[BATCH];
    FILE *texts = open_data(folder, "packages.tsv"), *vectors = open_data(folder, "packages.i8");
    size_t total = 0, count;

    do {
        for (count = 0; count < BATCH && read_package(texts, vectors, &batch[count]); count++) {
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
    fclose(vectors);
    return total;
}

static void read_question(const char *folder, char text[FIELD], int8_t vector[DIM])
{
    FILE *texts = open_data(folder, "questions.txt"), *vectors = open_data(folder, "questions.i8");

    expect(fgets(text, FIELD, texts) != NULL && fread(vector, 1, DIM, vectors) == DIM,
           "there is a question");
    text[strcspn(text, "\n")] = '\0';
    fclose(texts);
    fclose(vectors);
}

static void print_package(omendb_collection *packages, uint64_t id, const char *field)
{
    const char *const fields[] = {"section", field};
    char key[OMENDB_KEY_MAX + 1], metadata[METADATA];

    check(omendb_get_key(packages, NULL, id, key, sizeof key, NULL), "get the key");
    check(omendb_get_metadata(packages, NULL, id, fields, 2, metadata, sizeof metadata, NULL),
          "get the metadata");
    printf("    %-20s %s\n", key, metadata);
}

/* The same question under one condition; filter: NULL: under none. */
static void ask(omendb_collection *packages, const char *condition, const omendb_filter *filter,
                const int8_t *vector, const char *like)
{
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
    check(omendb_search(packages, NULL, &query, ids, NULL, &found), "search");
    expect(found == K, "as many hits as were asked for");
    printf("  %s (%.1f %% of the packages)\n", condition, 100 * (double)explain.selectivity);
    for (i = 0; i < found; i++) {
        print_package(packages, ids[i], "description");
    }
}

static void ask_under_conditions(omendb *db, omendb_collection *packages, const int8_t *vector)
{
    static const char *const conditions[] = {
        "section = 'sound'",
        "section IN ('games', 'python') AND length < 40",
        "words = 'video' AND NOT words = 'editor'",
        "{\"$or\": [{\"section\": \"x11\"}, {\"words\": {\"$prefix\": \"cut\"}}]}",
    };
    omendb_filter *filter;
    size_t i;

    ask(packages, "all", NULL, vector, NULL);
    for (i = 0; i < sizeof conditions / sizeof *conditions; i++) {
        check(omendb_filter_compile(db, conditions[i], &filter), "compile");
        ask(packages, conditions[i], filter, vector, NULL);
        omendb_filter_free(filter);
    }
}

/* One filter for many values: parameters keep quotes in what users type from being read as a part
 * of the condition. */
static void count_sections(omendb *db, omendb_collection *packages)
{
    static const char *const sections[] = {"games", "editors", "o'clock"};
    static const uint64_t expected[] = {376, 61, 0};
    omendb_filter *filter;
    uint64_t count;
    size_t i;

    check(omendb_filter_compile(db, "section = ?", &filter), "compile");
    for (i = 0; i < 3; i++) {
        check(omendb_filter_bind_text(filter, 1, sections[i]), "bind");
        check(omendb_count_matching(packages, NULL, filter, NULL, NULL, &count), "count");
        printf("  %s: %d packages\n", sections[i], (int)count);
        expect(count == expected[i], "the section has as many packages as in the data");
    }
    omendb_filter_free(filter);
}

/* Marks some packages, finds those that are like one of them and marked, and deletes the marked. */
static void mark_and_delete(omendb *db, omendb_collection *packages)
{
    static const char *const names[] = {"vim", "emacs", "nano", "gimp"};
    omendb_filter *filter;
    omendb_rows *rows;
    uint64_t id, deleted, count;
    size_t i;

    for (i = 0; i < 4; i++) {
        check(omendb_find(packages, NULL, names[i], &id), "find");
        check(omendb_update(packages, NULL, id, "{\"installed\": true}"), "update");
    }
    check(omendb_filter_compile(db, "installed", &filter), "compile");
    ask(packages, "like nano, installed", filter, NULL, "nano");
    check(omendb_scan_matching(packages, NULL, filter, 0, OMENDB_ID_AUTO - 1, &rows), "scan");
    while (omendb_rows_next(rows, &id, OMENDB_F32, NULL) == OMENDB_OK) {
        print_package(packages, id, "installed");
    }
    omendb_rows_close(rows);
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
    char question[FIELD];
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
    printf("Counting\n");
    count_sections(db, packages);
    printf("Marking and deleting\n");
    mark_and_delete(db, packages);
    omendb_collection_close(packages);
    check(omendb_close(db), "close");
    return 0;
}
