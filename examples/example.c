/* example.c: a database of colours, from opening to closing.
 *
 *     cc -std=c11 -I. examples/example.c omendb.c -o example -lm -lpthread
 *     ./example [DIRECTORY]
 *
 * A vector here is a colour: red, green, blue. Near vectors are colours that look alike. With the
 * vectors of a language model the program would be the same, and find texts of like meaning. */
#include <stdio.h>
#include <stdlib.h>

#include "omendb.h"

static const char *const names[] = {"red",  "green", "blue",   "black", "white",
                                    "navy", "olive", "orange", "pink",  "grey"};
static const float colours[][3] = {
    {1, 0, 0},    {0, 0.5f, 0},    {0, 0, 1},     {0, 0, 0},        {1, 1, 1},
    {0, 0, 0.5f}, {0.5f, 0.5f, 0}, {1, 0.65f, 0}, {1, 0.75f, 0.8f}, {0.5f, 0.5f, 0.5f},
};
enum { COLOURS = sizeof colours / sizeof *colours };

/* Every call that can fail returns a code; omendb_errmsg() has the sentence. */
static void check(int code, const char *what)
{
    if (code != OMENDB_OK) {
        fprintf(stderr, "%s: %s\n", what, omendb_errmsg());
        exit(1);
    }
}

static void print_nearest(omendb_collection *collection, const float colour[3])
{
    omendb_query query = OMENDB_QUERY_INIT;
    uint64_t ids[3];
    float distances[3];
    size_t found, i;

    query.vector = colour;
    query.k = 3;
    check(omendb_search(collection, NULL, &query, ids, distances, &found), "search");
    printf("near (%.2f %.2f %.2f):", (double)colour[0], (double)colour[1], (double)colour[2]);
    for (i = 0; i < found; i++) {
        printf("  %s (%.3f)", ids[i] < COLOURS ? names[ids[i]] : "added", (double)distances[i]);
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "example.omen";
    const float crimson[3] = {0.86f, 0.08f, 0.24f}, teal[3] = {0, 0.5f, 0.5f};
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_record record = OMENDB_RECORD_INIT;
    omendb *db;
    omendb_collection *collection;
    omendb_txn *snapshot;
    uint64_t ids[COLOURS], count, id, i;
    float vector[3];

    /* A database is a directory. It is created when it is missing. */
    check(omendb_open(path, NULL, &db), "open");

    /* A collection holds vectors of one dimension under one metric. What is left 0 in the schema
     * has its default: here the squared Euclidean distance, and vectors stored as f32. */
    schema.dim = 3;
    check(omendb_collection_open_or_create(db, "colours", &schema, &collection), "collection");

    /* All in one commit: after this line they are on the disk, or none is. `put` replaces what
     * has the same id, so the program can run twice; `add` would refuse. */
    for (i = 0; i < COLOURS; i++) {
        ids[i] = i;
    }
    check(omendb_put_batch(collection, NULL, COLOURS, ids, colours, OMENDB_F32, NULL), "put");
    print_nearest(collection, crimson);
    print_nearest(collection, teal);

    /* A snapshot keeps seeing the database as it is now. */
    check(omendb_txn_begin(db, OMENDB_READ_ONLY, &snapshot), "snapshot");

    /* One record. Without an id it gets the next free one. */
    record.vector = crimson;
    check(omendb_add(collection, NULL, &record, &id), "add");
    check(omendb_get(collection, NULL, id, OMENDB_F32, vector), "get");
    printf("crimson is record %llu: (%.2f %.2f %.2f)\n", (unsigned long long)id, (double)vector[0],
           (double)vector[1], (double)vector[2]);
    print_nearest(collection, crimson);

    check(omendb_count(collection, NULL, &count), "count");
    printf("%llu records", (unsigned long long)count);
    check(omendb_count(collection, snapshot, &count), "count in the snapshot");
    printf(", %llu in the snapshot\n", (unsigned long long)count);
    omendb_txn_rollback(snapshot);

    check(omendb_delete(collection, NULL, id), "delete");

    /* Children are closed before the database. */
    omendb_collection_close(collection);
    check(omendb_close(db), "close");
    return 0;
}
