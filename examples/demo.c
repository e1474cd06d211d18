/* demo.c: OmenDB on real data, from nothing to a crash and back.
 *
 *     make demo
 *     build/demo [DIRECTORY [DATA]]
 *
 * 5,000 Debian packages as embeddings of what they do (data/README.md), and 34 questions in plain
 * English. The demo makes a database of the packages, answers the questions with the graph and by
 * comparing everything, deletes and replaces records, has a child process killed in the middle of
 * writing, opens the database again, and looks for what was acknowledged.
 *
 * It exits with 1 if an answer is wrong or anything was lost. DIRECTORY (build/demo.omen) is
 * emptied first if it holds an OmenDB database, and refused if it holds something else. */
#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "omendb.h"

enum { DIM = 384, SCALE = 480, K = 10, BATCH = 500, CRASH_BATCH = 8, CRASH_COMMITS = 60 };

struct package {
    const char *name;
    const char *section;
    const char *description;
};

struct demo {
    const char *path;
    const char *data;
    char *package_text;
    struct package *packages;
    int8_t *package_vectors;
    size_t package_count;
    char *question_text;
    const char **questions;
    int8_t *question_vectors;
    size_t question_count;
    omendb *db;
    omendb_collection *collection;
    int problems;
};

/* Small helpers */

static void fail(const char *format, ...)
{
    va_list arguments;

    fflush(stdout);
    fputs("demo: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void check(int code, const char *what)
{
    if (code != OMENDB_OK) {
        fail("%s: %s (%s)", what, omendb_errmsg(), omendb_strerror(code));
    }
}

/* Tells that something promised did not come true; the demo goes on and exits with 1. */
static void expect(struct demo *demo, int truth, const char *promise)
{
    if (!truth) {
        printf("  NOT TRUE: %s\n", promise);
        demo->problems++;
    }
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);

    if (memory == NULL) {
        fail("no memory");
    }
    return memory;
}

static double now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void heading(const char *text)
{
    const int bold = isatty(STDOUT_FILENO) && getenv("NO_COLOR") == NULL;

    printf("\n%s%s%s\n", bold ? "\033[1m" : "", text, bold ? "\033[0m" : "");
}

/* Prints `text` in a column of `width` bytes, cut with dots where it is longer. */
static void column(const char *text, int width)
{
    const int length = (int)strlen(text);

    if (length <= width) {
        printf("%-*s  ", width, text);
    } else {
        printf("%.*s..  ", width - 2, text);
    }
}

/* Data */

static char *read_file(const struct demo *demo, const char *name, size_t *size)
{
    char path[1024];
    FILE *file;
    char *bytes;
    long length = -1;

    snprintf(path, sizeof path, "%s/%s", demo->data, name);
    file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (length = ftell(file)) < 0) {
        fail("%s: %s; run it in the folder of the Makefile, or give the folder of the data as the "
             "second argument",
             path, strerror(errno));
    }
    rewind(file);
    bytes = allocate((size_t)length + 1, 1);
    if (fread(bytes, 1, (size_t)length, file) != (size_t)length) {
        fail("%s: cannot be read", path);
    }
    fclose(file);
    *size = (size_t)length;
    return bytes;
}

static size_t count_lines(const char *text)
{
    size_t lines = 0;

    for (; *text != '\0'; text++) {
        lines += *text == '\n';
    }
    return lines;
}

/* Ends the text at the next `separator` and returns what is behind it. */
static char *cut(char *text, char separator)
{
    char *end = strchr(text, separator);

    if (end == NULL) {
        fail("the data is damaged");
    }
    *end = '\0';
    return end + 1;
}

static void load_packages(struct demo *demo)
{
    size_t size, i;
    char *at = demo->package_text = read_file(demo, "packages.tsv", &size);

    demo->package_count = count_lines(at);
    demo->packages = allocate(demo->package_count, sizeof *demo->packages);
    for (i = 0; i < demo->package_count; i++) {
        demo->packages[i].name = at;
        at = cut(at, '\t');
        demo->packages[i].section = at;
        at = cut(at, '\t');
        demo->packages[i].description = at;
        at = cut(at, '\n');
    }
    demo->package_vectors = (int8_t *)read_file(demo, "packages.i8", &size);
    if (size != demo->package_count * DIM) {
        fail("packages.tsv and packages.i8 do not belong together");
    }
}

static void load_questions(struct demo *demo)
{
    size_t size, i;
    char *at = demo->question_text = read_file(demo, "questions.txt", &size);

    demo->question_count = count_lines(at);
    demo->questions = allocate(demo->question_count, sizeof *demo->questions);
    for (i = 0; i < demo->question_count; i++) {
        demo->questions[i] = at;
        at = cut(at, '\n');
    }
    demo->question_vectors = (int8_t *)read_file(demo, "questions.i8", &size);
    if (size != demo->question_count * DIM || demo->question_count == 0) {
        fail("questions.txt and questions.i8 do not belong together");
    }
}

static uint64_t find_package(const struct demo *demo, const char *name)
{
    size_t i;

    for (i = 0; i < demo->package_count; i++) {
        if (strcmp(demo->packages[i].name, name) == 0) {
            return i;
        }
    }
    fail("there is no package %s in the data", name);
    return 0;
}

static const int8_t *package_vector(const struct demo *demo, uint64_t id)
{
    return demo->package_vectors + id * DIM;
}

/* Database */

static int is_database_file(const char *name)
{
    static const char *const beginnings[] = {"LOCK", "CURRENT", "MANIFEST-",
                                             "wal-", "seg-",    "ovl-"};
    size_t i;

    for (i = 0; i < sizeof beginnings / sizeof *beginnings; i++) {
        if (strncmp(name, beginnings[i], strlen(beginnings[i])) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Removes the database of an earlier run, and nothing else. */
static void remove_database(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    char file[2048];

    if (directory == NULL) {
        return;
    }
    while ((entry = readdir(directory)) != NULL) {
        if (is_database_file(entry->d_name)) {
            snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
            unlink(file);
        }
    }
    closedir(directory);
    if (rmdir(path) != 0) {
        fail("%s: %s; give another directory", path, strerror(errno));
    }
}

static void open_database(struct demo *demo)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;

    schema.dim = DIM;
    schema.metric = OMENDB_COSINE;
    schema.scalar = OMENDB_I8;
    schema.scale = SCALE;
    check(omendb_open(demo->path, NULL, &demo->db), "open");
    check(omendb_collection_open_or_create(demo->db, "packages", &schema, &demo->collection),
          "open the collection");
}

static void close_database(struct demo *demo)
{
    omendb_collection_close(demo->collection);
    check(omendb_close(demo->db), "close");
}

static size_t search(struct demo *demo, const int8_t *vector, uint64_t like, int exact,
                     uint64_t ids[K], float distances[K])
{
    omendb_query query = OMENDB_QUERY_INIT;
    size_t count;

    query.vector = vector;
    query.vector_type = OMENDB_I8;
    query.id = like;
    query.k = K;
    query.exact = (uint32_t)exact;
    check(omendb_search(demo->collection, NULL, &query, ids, distances, &count), "search");
    return count;
}

/* 1: making */

static void add_packages(struct demo *demo)
{
    uint64_t ids[BATCH];
    size_t done, count, i, commits = 0;
    double start = now_ms(), added, built;

    for (done = 0; done < demo->package_count; done += count) {
        count = demo->package_count - done < BATCH ? demo->package_count - done : BATCH;
        for (i = 0; i < count; i++) {
            ids[i] = done + i;
        }
        check(omendb_add_batch(demo->collection, NULL, count, ids, package_vector(demo, done),
                               OMENDB_I8, NULL),
              "add");
        commits++;
    }
    added = now_ms() - start;
    start = now_ms();
    check(omendb_optimize(demo->db, NULL, NULL), "optimize");
    built = now_ms() - start;
    printf("  %zu packages added in %zu durable commits: %.0f ms\n", done, commits, added);
    printf("  graph finished: %.0f ms\n", built);
}

/* 2: questions */

struct answer {
    uint64_t ids[2][K]; /* by the graph, by comparing everything */
    float distances[2][K];
    size_t counts[2];
    double us[2];
    size_t common;
};

static void ask(struct demo *demo, const int8_t *vector, struct answer *answer)
{
    size_t i, j;
    int exact;

    for (exact = 0; exact < 2; exact++) {
        const double start = now_ms();

        answer->counts[exact] = search(demo, vector, OMENDB_ID_AUTO, exact, answer->ids[exact],
                                       answer->distances[exact]);
        answer->us[exact] = (now_ms() - start) * 1e3;
    }
    answer->common = 0;
    for (i = 0; i < answer->counts[0]; i++) {
        for (j = 0; j < answer->counts[1]; j++) {
            answer->common += answer->ids[0][i] == answer->ids[1][j];
        }
    }
}

/* The names of the first three hits. */
static void join_names(const struct demo *demo, const uint64_t *ids, size_t count, char *text,
                       size_t capacity)
{
    size_t i, length = 0;

    text[0] = '\0';
    for (i = 0; i < 3 && i < count && length < capacity; i++) {
        length += (size_t)snprintf(text + length, capacity - length, "%s%s", i == 0 ? "" : ", ",
                                   demo->packages[ids[i]].name);
    }
}

static void print_answer(const struct demo *demo, const char *question, const struct answer *answer)
{
    char found[256], exact[256];

    join_names(demo, answer->ids[0], answer->counts[0], found, sizeof found);
    join_names(demo, answer->ids[1], answer->counts[1], exact, sizeof exact);
    printf("  ");
    column(question, 36);
    column(found, 40);
    column(strcmp(found, exact) == 0 ? "the same" : "below", 8);
    printf("%3zu/%-2d %6.0f %9.0f\n", answer->common, K, answer->us[0], answer->us[1]);
    if (strcmp(found, exact) != 0) {
        printf("  %36s  %s\n", "exact:", exact);
    }
}

static void answer_questions(struct demo *demo)
{
    struct answer answer;
    size_t i, common = 0;
    double us[2] = {0, 0};

    printf("  ");
    column("question", 36);
    column("found by the graph", 40);
    column("exact", 8);
    printf("%6s %6s %9s\n", "recall", "us", "exact us");
    for (i = 0; i < demo->question_count; i++) {
        ask(demo, demo->question_vectors + i * DIM, &answer);
        print_answer(demo, demo->questions[i], &answer);
        common += answer.common;
        us[0] += answer.us[0];
        us[1] += answer.us[1];
    }
    printf("  recall@%d %.3f; %.0f us a question by the graph, %.0f us exact\n", K,
           (double)common / (double)(K * demo->question_count),
           us[0] / (double)demo->question_count, us[1] / (double)demo->question_count);
    expect(demo, (double)common >= 0.95 * K * (double)demo->question_count, "recall of 0.95");
}

/* 3: more like this */

static void print_like(struct demo *demo, const char *name)
{
    const uint64_t like = find_package(demo, name);
    uint64_t ids[K];
    float distances[K];
    size_t count = search(demo, NULL, like, 0, ids, distances), i;

    printf("  %s (%s)\n", name, demo->packages[like].description);
    for (i = 0; i < 4 && i < count; i++) {
        const struct package *package = &demo->packages[ids[i]];

        printf("    %.3f  ", (double)distances[i]);
        column(package->name, 18);
        column(package->section, 9);
        printf("%s\n", package->description);
        expect(demo, ids[i] != like, "a record is not like itself");
    }
}

/* 4: changing */

static void change_records(struct demo *demo)
{
    const char *question = demo->questions[0];
    const int8_t *vector = demo->question_vectors;
    const uint64_t moved = find_package(demo, "gnuplot");
    omendb_record record = OMENDB_RECORD_INIT;
    uint64_t before[K], after[K], count;
    float distances[K];

    search(demo, vector, OMENDB_ID_AUTO, 0, before, distances);
    check(omendb_delete(demo->collection, NULL, before[0]), "delete");
    search(demo, vector, OMENDB_ID_AUTO, 0, after, distances);
    printf("  \"%s\": %s deleted, now the first is %s\n", question, demo->packages[before[0]].name,
           demo->packages[after[0]].name);
    expect(demo, after[0] == before[1], "the second becomes the first");

    record.id = moved;
    record.vector = vector;
    record.vector_type = OMENDB_I8;
    check(omendb_put(demo->collection, NULL, &record, NULL), "put");
    search(demo, vector, OMENDB_ID_AUTO, 0, after, distances);
    printf("  gnuplot replaced by a vector that is the question: the first is %s, %.3f away\n",
           demo->packages[after[0]].name, fabs((double)distances[0]));
    expect(demo, after[0] == moved, "a replaced record is found where it is now");
    check(omendb_count(demo->collection, NULL, &count), "count");
    printf("  %llu records\n", (unsigned long long)count);
    expect(demo, count == demo->package_count - 1, "one record less");
}

static void reopen(struct demo *demo)
{
    const double start = now_ms();
    double closed, opened, searched;
    uint64_t ids[K], count;
    float distances[K];

    close_database(demo);
    closed = now_ms();
    open_database(demo);
    opened = now_ms();
    search(demo, demo->question_vectors, OMENDB_ID_AUTO, 0, ids, distances);
    searched = now_ms();
    check(omendb_count(demo->collection, NULL, &count), "count");
    printf("  closed in %.1f ms, opened in %.1f ms, first answer %.1f ms later: %llu records, "
           "%s first\n",
           closed - start, opened - closed, searched - opened, (unsigned long long)count,
           demo->packages[ids[0]].name);
    expect(demo, ids[0] == find_package(demo, "gnuplot") && count == demo->package_count - 1,
           "changes survive closing");
}

/* 5: a crash */

/* The child: adds copies of the packages under new ids, a few a commit, and tells each commit that
 * was acknowledged through the pipe, for ever. */
static void write_until_killed(struct demo *demo, int pipe_end)
{
    uint64_t ids[CRASH_BATCH], first = demo->package_count;
    size_t i, row;

    open_database(demo);
    for (;; first += CRASH_BATCH) {
        row = (size_t)(first % (demo->package_count - CRASH_BATCH));
        for (i = 0; i < CRASH_BATCH; i++) {
            ids[i] = first + i;
        }
        check(omendb_add_batch(demo->collection, NULL, CRASH_BATCH, ids, package_vector(demo, row),
                               OMENDB_I8, NULL),
              "add in the child");
        if (write(pipe_end, &first, sizeof first) != (ssize_t)sizeof first) {
            _exit(1);
        }
    }
}

/* Starts the child, waits for some commits, kills it, and takes in what it still had told. Returns
 * how many commits were acknowledged. */
static size_t run_and_kill_child(struct demo *demo)
{
    int ends[2], status;
    size_t acknowledged = 0;
    uint64_t first;
    pid_t child = -1;

    fflush(stdout);
    if (pipe(ends) != 0 || (child = fork()) < 0) {
        fail("no child process: %s", strerror(errno));
    }
    if (child == 0) {
        close(ends[0]);
        write_until_killed(demo, ends[1]);
    }
    close(ends[1]);
    while (read(ends[0], &first, sizeof first) == (ssize_t)sizeof first) {
        acknowledged++;
        if (acknowledged == CRASH_COMMITS) {
            kill(child, SIGKILL);
        }
    }
    close(ends[0]);
    waitpid(child, &status, 0);
    expect(demo, WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the child was killed");
    return acknowledged;
}

/* Counts the records of the child from the first one on that are there with all of their bytes. */
static uint64_t count_intact(const struct demo *demo, uint64_t limit)
{
    int8_t stored[DIM];
    uint64_t n;

    for (n = 0; n < limit; n++) {
        const uint64_t id = demo->package_count + n;
        const uint64_t batch = id - n % CRASH_BATCH;
        const uint64_t row = batch % (demo->package_count - CRASH_BATCH) + n % CRASH_BATCH;

        if (omendb_get(demo->collection, NULL, id, OMENDB_I8, stored) != OMENDB_OK ||
            memcmp(stored, package_vector(demo, row), DIM) != 0) {
            break;
        }
    }
    return n;
}

static void crash(struct demo *demo)
{
    const uint64_t before = demo->package_count - 1;
    uint64_t count, intact;
    size_t acknowledged;
    double start;

    close_database(demo);
    acknowledged = run_and_kill_child(demo);
    start = now_ms();
    open_database(demo);
    printf("  killed by kill -9 after %zu acknowledged commits of %d records; opened again in "
           "%.1f ms\n",
           acknowledged, CRASH_BATCH, now_ms() - start);
    check(omendb_count(demo->collection, NULL, &count), "count");
    intact = count_intact(demo, count);
    printf("  acknowledged: %llu records. There: %llu, every byte as it was written\n",
           (unsigned long long)(acknowledged * CRASH_BATCH), (unsigned long long)intact);
    expect(demo, intact >= acknowledged * CRASH_BATCH, "nothing that was acknowledged is lost");
    expect(demo, intact % CRASH_BATCH == 0, "no commit is there by half");
    expect(demo, count == before + intact, "nothing else changed");
}

/* 6: the end */

static void report_line(void *context, const char *line)
{
    (void)context;
    printf("  %s\n", line);
}

static void finish(struct demo *demo)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    uint64_t problems;
    const double start = now_ms();

    check(omendb_check(demo->db, report_line, NULL, &problems), "check");
    printf("  every checksum and structure verified in %.0f ms: %llu problems\n", now_ms() - start,
           (unsigned long long)problems);
    expect(demo, problems == 0, "no problems");
    check(omendb_get_stats(demo->db, &stats), "stats");
    printf("  %llu records, %.1f MB in files, %.1f MB of memory, kernels %s\n",
           (unsigned long long)stats.records, (double)stats.file_bytes / 1e6,
           (double)stats.memory_bytes / 1e6, omendb_kernels());
    close_database(demo);
}

static void release(struct demo *demo)
{
    free(demo->package_text);
    free(demo->packages);
    free(demo->package_vectors);
    free(demo->question_text);
    free(demo->questions);
    free(demo->question_vectors);
}

int main(int argc, char **argv)
{
    struct demo demo = {0};
    const double start = now_ms();

    demo.path = argc > 1 ? argv[1] : "build/demo.omen";
    demo.data = argc > 2 ? argv[2] : "examples/data";
    load_packages(&demo);
    load_questions(&demo);
    remove_database(demo.path);
    printf("OmenDB %s: %zu Debian packages as vectors of %d dimensions, in %s\n", omendb_version(),
           demo.package_count, DIM, demo.path);

    heading("Making the database");
    open_database(&demo);
    add_packages(&demo);

    heading("Questions in plain English");
    answer_questions(&demo);

    heading("More like this package");
    print_like(&demo, "ffmpeg");
    print_like(&demo, "sqlite3");
    print_like(&demo, "stellarium");

    heading("Deleting and replacing");
    change_records(&demo);
    reopen(&demo);

    heading("A crash in mid-write");
    crash(&demo);

    heading("Checking everything");
    finish(&demo);
    printf("\n%s, %.1f s in all\n", demo.problems == 0 ? "Done" : "SOMETHING WAS WRONG",
           (now_ms() - start) / 1e3);
    release(&demo);
    return demo.problems == 0 ? 0 : 1;
}
