/* two_phase.c: one commit over two databases, which survives a crash at every step.
 *
 *     cc -std=c11 -I. examples/two_phase.c omendb.c -o two_phase -lm -lpthread
 *     ./two_phase [DIRECTORY]
 *
 * A document moves from the database "hot" to the database "archive". It must never be in both, nor
 * in neither, whatever happens on the way. So the move is prepared in both under one name; then the
 * outcome in "hot" is the decision, and "archive" follows. Whoever comes back after a crash reads
 * from the states of the name how far things got, and finishes:
 *
 *     hot          archive      what that means          what is done
 *     waiting      any          nothing was decided      rolled back in both
 *     committed    waiting      decided, half done       committed in archive
 *     rolled back  waiting      decided, half done       rolled back in archive
 *     unknown      waiting      cannot be                (the name is prepared in hot first)
 *
 * Outcomes are forgotten in "archive" first, as the one in "hot" is what the other is told by.
 *
 * The program moves document after document in a child process and kills the child, with SIGKILL,
 * after the first step, the second, and so on; then one that recovers, after its first, second,
 * third step; then it recovers itself and counts. */
#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "omendb.h"

enum { DIM = 4, DOCUMENTS = 60 };

struct site {
    omendb *db;
    omendb_collection *documents;
};

static int last_step; /* the process dies after it; 0: never */
static int steps;

static void check(int code, const char *what)
{
    if (code != OMENDB_OK) {
        fprintf(stderr, "%s: %s\n", what, omendb_errmsg());
        exit(1);
    }
}

/* The place of a crash. */
static void step(void)
{
    if (++steps == last_step)
        raise(SIGKILL);
}

static void open_site(const char *folder, const char *name, struct site *site)
{
    char path[4096];
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = DIM;
    snprintf(path, sizeof path, "%s/%s.omen", folder, name);
    check(omendb_open(path, NULL, &site->db), "open");
    check(omendb_collection_open_or_create(site->db, "documents", &schema, &site->documents),
          "open documents");
}

static void close_site(struct site *site)
{
    omendb_collection_close(site->documents);
    check(omendb_close(site->db), "close");
}

/* One of omendb_prepared_state, or 0 where the name is unknown. */
static int state_of(struct site *site, const char *wanted)
{
    char name[OMENDB_PREPARED_NAME_MAX + 1];
    int state;
    for (size_t i = 0; omendb_prepared_name(site->db, i, name, sizeof name, &state) == OMENDB_OK;
         i++) {
        if (strcmp(name, wanted) == 0)
            return state;
    }
    return 0;
}

/* ------------------------------------------------------------------ the first phase */

static void prepare_departure(struct site *from, uint64_t id, const char *name)
{
    omendb_txn *txn;
    check(omendb_txn_begin(from->db, OMENDB_READ_WRITE, &txn), "begin");
    check(omendb_delete(from->documents, txn, id), "delete");
    check(omendb_txn_prepare(txn, name), "prepare the departure");
}

static void prepare_arrival(struct site *to, uint64_t id, const float *vector, const char *name)
{
    omendb_txn *txn;
    omendb_record record = OMENDB_RECORD_INIT;
    record.id = id;
    record.vector = vector;
    check(omendb_txn_begin(to->db, OMENDB_READ_WRITE, &txn), "begin");
    check(omendb_add(to->documents, txn, &record, NULL), "add");
    check(omendb_txn_prepare(txn, name), "prepare the arrival");
}

/* ------------------------------------------------------------------ the second phase */

/* `hot` has decided; `archive` does the same, and both forget. */
static void follow(struct site *hot, struct site *archive, const char *name)
{
    if (state_of(archive, name) == OMENDB_PREPARED_WAITING) {
        if (state_of(hot, name) == OMENDB_PREPARED_COMMITTED)
            check(omendb_commit_prepared(archive->db, name), "commit the arrival");
        else
            check(omendb_rollback_prepared(archive->db, name), "roll the arrival back");
    }
    step();
    if (state_of(archive, name) != 0)
        check(omendb_forget_prepared(archive->db, name), "forget");
    step();
    check(omendb_forget_prepared(hot->db, name), "forget");
    step();
}

static void move_document(struct site *hot, struct site *archive, uint64_t id)
{
    char name[64];
    float vector[DIM];
    snprintf(name, sizeof name, "move-%llu", (unsigned long long)id);
    check(omendb_get(hot->documents, NULL, id, OMENDB_F32, vector), "get");
    prepare_departure(hot, id, name);
    step();
    prepare_arrival(archive, id, vector, name);
    step();
    check(omendb_commit_prepared(hot->db, name), "commit the departure"); /* the decision */
    step();
    follow(hot, archive, name);
}

/* After a crash. Each round ends with one name less. */
static void recover(struct site *hot, struct site *archive)
{
    char name[OMENDB_PREPARED_NAME_MAX + 1];
    int state;
    while (omendb_prepared_name(hot->db, 0, name, sizeof name, &state) == OMENDB_OK) {
        if (state == OMENDB_PREPARED_WAITING)
            check(omendb_rollback_prepared(hot->db, name), "roll the departure back");
        follow(hot, archive, name);
    }
}

/* ------------------------------------------------------------------ crashing on purpose */

static void work(const char *folder)
{
    struct site hot, archive;
    open_site(folder, "hot", &hot);
    open_site(folder, "archive", &archive);
    step();
    recover(&hot, &archive);
    for (uint64_t id = 0; id < DOCUMENTS; id++) {
        if (omendb_get(hot.documents, NULL, id, OMENDB_F32, NULL) == OMENDB_OK)
            move_document(&hot, &archive, id);
    }
    close_site(&hot);
    close_site(&archive);
}

/* 1: the child came to its end; 0: it died at `at`. */
static int run_until(const char *folder, int at)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        last_step = at;
        steps = 0;
        work(folder);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) {
        perror("child");
        exit(1);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
        exit(1);
    return WIFEXITED(status);
}

/* Each document is in exactly one place. Returns how many are in the archive. */
static int count_moved(const char *folder)
{
    struct site hot, archive;
    int moved = 0;
    open_site(folder, "hot", &hot);
    open_site(folder, "archive", &archive);
    recover(&hot, &archive);
    for (uint64_t id = 0; id < DOCUMENTS; id++) {
        int here = omendb_get(hot.documents, NULL, id, OMENDB_F32, NULL) == OMENDB_OK;
        int there = omendb_get(archive.documents, NULL, id, OMENDB_F32, NULL) == OMENDB_OK;
        if (here == there) {
            fprintf(stderr, "document %llu is in %s\n", (unsigned long long)id,
                    here ? "both databases" : "neither database");
            exit(1);
        }
        moved += there;
    }
    close_site(&hot);
    close_site(&archive);
    return moved;
}

static void fill(const char *folder)
{
    struct site hot;
    float vectors[DOCUMENTS][DIM];
    uint64_t ids[DOCUMENTS];
    for (int i = 0; i < DOCUMENTS; i++) {
        ids[i] = (uint64_t)i;
        for (int d = 0; d < DIM; d++)
            vectors[i][d] = (float)(i * (d + 1) % 7);
    }
    open_site(folder, "hot", &hot);
    check(omendb_put_batch(hot.documents, NULL, DOCUMENTS, ids, vectors, OMENDB_F32, NULL), "fill");
    close_site(&hot);
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : "two_phase";
    if (mkdir(folder, 0700) != 0) {
        fprintf(stderr, "%s is there already, or cannot be made: give a new name\n", folder);
        return 1;
    }
    fill(folder);
    int crashes = 0, moved = 0, ended = 0;
    for (int at = 1; !ended; at++) {
        ended = run_until(folder, at);
        crashes += !ended;
        for (int again = 1; again <= 3 && !ended; again++)
            crashes += !run_until(folder, again);
        moved = count_moved(folder);
        if (!ended)
            printf("killed after step %2d: %2d of %d documents moved, none lost, none twice\n", at,
                   moved, DOCUMENTS);
    }
    printf("%d crashes; %d of %d documents moved\n", crashes, moved, DOCUMENTS);
    return moved == DOCUMENTS ? 0 : 1;
}
