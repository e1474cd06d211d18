/* test_readers.c: the shell's readers of files, on good files, on damaged ones, and on noise. */
#include "amalgamation/shell/readers.c"
#include "amalgamation/shell/failure.c"
#include "amalgamation/shell/json.c"
#include "amalgamation/shell/readers_binary.c"
#include "amalgamation/shell/readers_text.c"

#include <stdlib.h>
#include <unistd.h>

#include "test.h"

#define ROWS_MAX 64

static struct failure failure;
static uint64_t ids[ROWS_MAX];
static float vectors[ROWS_MAX * 512];
static size_t count;
static struct reader reader;
static char message[1200];

static const char *path_of(const char *name)
{
    static char path[1024];
    const char *directory = getenv("OMENDB_TEST_DIRECTORY");

    snprintf(path, sizeof path, "%s/readers-%s", directory != NULL ? directory : ".", name);
    return path;
}

/* Writes a file and reads all of it, leaving rows, scalar and dim behind in `reader`. */
static int read_back(const char *name, const void *bytes, size_t size)
{
    const char *path = path_of(name);
    FILE *file = fopen(path, "wb");
    size_t got = 1;
    int code;

    if (file == NULL || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
    memset(&failure, 0, sizeof failure);
    count = 0;
    code = reader_open(&reader, path, NULL, &failure);
    while (code == OMENDB_OK && got != 0 && count < ROWS_MAX && reader.dim <= 128) {
        code = reader_next(&reader, 1, ids + count, vectors + count * 512, NULL, &got);
        count += got;
    }
    snprintf(message, sizeof message, "%s", failure.message);
    reader_close(&reader);
    unlink(path);
    return code;
}

static int read_text(const char *name, const char *text)
{
    return read_back(name, text, strlen(text));
}

/* A failure must name the file, and what is expected of the reader of the message. */
static int fails_with(int code, int expected, const char *words)
{
    if (code != expected || strstr(message, words) == NULL || strstr(message, "readers-") == NULL) {
        fprintf(stderr, "code %d, message: %s\n", code, message);
        return 0;
    }
    return 1;
}

static size_t npy(unsigned char *file, const char *header, const void *data, size_t size)
{
    const size_t length = strlen(header);

    memcpy(file, "\x93NUMPY\x01\x00", 8);
    file[8] = (unsigned char)(length & 255);
    file[9] = (unsigned char)(length >> 8);
    memcpy(file + 10, header, length);
    memcpy(file + 10 + length, data, size);
    return 10 + length + size;
}

static int read_npy(const char *header, const void *data, size_t size)
{
    unsigned char file[4096];

    return read_back("a.npy", file, npy(file, header, data, size));
}

static const float six[6] = {1, 2, 3, 4, 5, 6};

TEST(npy_of_every_type_is_read)
{
    const double doubles[4] = {0.5, -0.25, 1e30, 3};
    const unsigned char bytes[6] = {0, 1, 2, 253, 254, 255};

    CHECK_EQ_INT(read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n", six, 24),
                 0);
    CHECK_EQ_INT(count, 2);
    CHECK(vectors[0] == 1 && vectors[2] == 3 && vectors[512] == 4);
    CHECK_EQ_INT(
        read_npy("{\"shape\":(2,2),\"fortran_order\":False,\"descr\":\"<f8\"}", doubles, 32), 0);
    CHECK(vectors[0] == 0.5f && vectors[1] == -0.25f && vectors[512] == 1e30f);
    CHECK_EQ_INT(read_npy("{'descr': '|i1', 'fortran_order': False, 'shape': (1L, 6L)}", bytes, 6),
                 0);
    CHECK_EQ_INT(((signed char *)vectors)[3], -3);
    CHECK_EQ_INT(read_npy("{'descr': '|u1', 'fortran_order': False, 'shape': (6, 1)}", bytes, 6),
                 0);
    CHECK_EQ_INT(count, 6);
    CHECK_EQ_INT(read_npy("{'descr': '<f2', 'fortran_order': False, 'shape': (1, 3)}", bytes, 6),
                 0);
    CHECK_EQ_INT(read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3)}", six, 0), 0);
    CHECK_EQ_INT(count, 0);
}

TEST(npy_that_cannot_be_taken_says_what_to_do)
{
    const double large[2] = {0, 1e300};
    int code = read_npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", six, 24);

    CHECK(fails_with(code, OMENDB_UNSUPPORTED, "np.ascontiguousarray"));
    code = read_npy("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3)}", six, 24);
    CHECK(fails_with(code, OMENDB_UNSUPPORTED, "'>f4'"));
    code = read_npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1, 3)}", six, 24);
    CHECK(fails_with(code, OMENDB_UNSUPPORTED, "astype"));
    code = read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}", six, 24);
    CHECK(fails_with(code, OMENDB_UNSUPPORTED, "reshape"));
    code = read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3)}", six, 24);
    CHECK(fails_with(code, OMENDB_UNSUPPORTED, "two-dimensional"));
    code = read_npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (6,)}", six, 24);
    CHECK(fails_with(code, OMENDB_INVALID, "plain arrays"));
    code = read_npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2)}", large, 16);
    CHECK(fails_with(code, OMENDB_INVALID, "row 0, element 1"));
}

TEST(npy_that_lies_about_its_size_is_refused)
{
    int code = read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3)}", six, 24);

    CHECK(fails_with(code, OMENDB_INVALID, "promises 3 rows"));
    code = read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3)}", six, 24);
    CHECK(fails_with(code, OMENDB_INVALID, "12 bytes follow"));
    code = read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387905, 3)}",
                    six, 24);
    CHECK(fails_with(code, OMENDB_INVALID, "promises"));
    code = read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4611686018427387904)}",
                    six, 24);
    CHECK(fails_with(code, OMENDB_INVALID, "elements"));
    code = read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 3)}",
                    six, 24);
    CHECK(fails_with(code, OMENDB_INVALID, "not understood"));
    code = read_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0)}", six, 24);
    CHECK(fails_with(code, OMENDB_INVALID, "0 elements"));
}

TEST(fvecs_and_bvecs_are_read)
{
    unsigned char file[64] = {3, 0, 0, 0};

    memcpy(file + 4, six, 12);
    file[16] = 3;
    memcpy(file + 20, six + 3, 12);
    CHECK_EQ_INT(read_back("a.fvecs", file, 32), 0);
    CHECK(count == 2 && vectors[0] == 1 && vectors[514] == 6);
    CHECK(fails_with(read_back("a.fvecs", file, 30), OMENDB_INVALID, "no whole number of rows"));
    file[16] = 2;
    CHECK(fails_with(read_back("a.fvecs", file, 32), OMENDB_INVALID, "row 1 has 2"));
    memset(file, 0, sizeof file);
    file[0] = file[8] = 4;
    file[15] = 200;
    CHECK_EQ_INT(read_back("a.bvecs", file, 16), 0);
    CHECK(count == 2 && ((unsigned char *)(vectors + 512))[3] == 200);
    memset(file, 255, 4);
    CHECK(fails_with(read_back("a.bvecs", file, 16), OMENDB_INVALID, "4294967295 elements"));
    CHECK(fails_with(read_back("a.bvecs", "", 0), OMENDB_INVALID, "empty"));
}

TEST(fbin_and_its_relatives_are_read)
{
    uint32_t file[8] = {2, 3};

    memcpy(file + 2, six, 24);
    CHECK_EQ_INT(read_back("a.fbin", file, 32), 0);
    CHECK(count == 2 && vectors[512] == 4);
    CHECK(fails_with(read_back("a.fbin", file, 31), OMENDB_INVALID, "cut short"));
    CHECK(fails_with(read_back("a.u8bin", file, 32), OMENDB_INVALID, "18 bytes follow"));
    CHECK_EQ_INT(read_back("a.u8bin", file, 14), 0);
    CHECK_EQ_INT(read_back("a.i8bin", file, 14), 0);
    file[0] = 0xffffffff;
    file[1] = 65535;
    CHECK(fails_with(read_back("a.fbin", file, 32), OMENDB_INVALID, "promises 4294967295 rows"));
    CHECK(fails_with(read_back("a.fbin", file, 5), OMENDB_INVALID, "cut short"));
}

TEST(csv_is_read)
{
    CHECK_EQ_INT(read_text("a.csv", "id,x,y\n1,0.5,-1e-3\n\n7, \"2\" ,3\r\n"), 0);
    CHECK(count == 2 && ids[0] == 1 && ids[1] == 7 && vectors[512] == 2 && vectors[1] == -1e-3f);
    CHECK_EQ_INT(read_text("a.csv", "\xef\xbb\xbf"
                                    "18446744073709551614;1.5;2"),
                 0);
    CHECK(count == 1 && ids[0] == OMENDB_ID_AUTO - 1 && vectors[0] == 1.5f);
    CHECK_EQ_INT(read_text("a.csv", ",0,1\n3\t4\n"), OMENDB_INVALID);
    CHECK_EQ_INT(read_text("a.csv", "1\t0\t1\n3\t4\t5\n"), 0);
}

TEST(csv_that_is_wrong_names_line_and_column)
{
    CHECK(fails_with(read_text("a.csv", "1,2,3\n2,2\n"), OMENDB_INVALID, "line 2: 1 elements"));
    CHECK_EQ_INT(count, 1);
    CHECK(fails_with(read_text("a.csv", "1,2,x3\n"), OMENDB_INVALID, "line 1: column 3: 'x3'"));
    CHECK(fails_with(read_text("a.csv", "1,2,\n"), OMENDB_INVALID, "column 3"));
    CHECK(fails_with(read_text("a.csv", "1,nan\n"), OMENDB_INVALID, "'nan'"));
    CHECK(fails_with(read_text("a.csv", "1,1e39\n"), OMENDB_INVALID, "'1e39'"));
    CHECK(fails_with(read_text("a.csv", "1,0x10\n"), OMENDB_INVALID, "'0x10'"));
    CHECK(fails_with(read_text("a.csv", "-1,2\n"), OMENDB_INVALID, "column 1: '-1' is no id"));
    CHECK(fails_with(read_text("a.csv", "1.5,2\n"), OMENDB_INVALID, "no id"));
    CHECK(fails_with(read_text("a.csv", "18446744073709551615,2\n"), OMENDB_INVALID, "no id"));
    CHECK(fails_with(read_text("a.csv", "id,x\n"), OMENDB_INVALID, "has no rows"));
    CHECK(fails_with(read_text("a.csv", "hello\n"), OMENDB_INVALID, "only one column"));
    CHECK(fails_with(read_back("a.csv", "1,2\0,3\n", 7), OMENDB_INVALID, "NUL"));
}

TEST(jsonl_is_read)
{
    CHECK_EQ_INT(read_text("a.jsonl", "{\"id\": 5, \"vector\": [1, -2.5e-1]}\n"
                                      "{\"text\": {\"a\": [1, {}, \"]\\\"\"]}, \"vector\":[0,1],"
                                      "\"\\u0069d\":6}\n\n"),
                 0);
    CHECK(count == 2 && ids[0] == 5 && ids[1] == 6 && vectors[1] == -0.25f && vectors[513] == 1);
    CHECK_EQ_INT(read_text("a.jsonl", "[1,2]\n{\"vector\":[3,4]}"), 0);
    CHECK(count == 2 && vectors[512] == 3);
}

TEST(jsonl_that_is_wrong_names_line_and_column)
{
    CHECK(fails_with(read_text("a.jsonl", "{\"id\": 1}"), OMENDB_INVALID, "no key \"vector\""));
    CHECK(fails_with(read_text("a.jsonl", "[1,2\n"), OMENDB_INVALID, "line 1: column 5"));
    CHECK(fails_with(read_text("a.jsonl", "[1,2]]\n"), OMENDB_INVALID, "text behind"));
    CHECK(fails_with(read_text("a.jsonl", "[1,\"2\"]\n"), OMENDB_INVALID, "element 1"));
    CHECK(fails_with(read_text("a.jsonl", "[1,01]\n"), OMENDB_INVALID, "malformed number"));
    CHECK(fails_with(read_text("a.jsonl", "[1,NaN]\n"), OMENDB_INVALID, "column 4"));
    CHECK(fails_with(read_text("a.jsonl", "[1e99]\n"), OMENDB_INVALID, "32-bit float"));
    CHECK(fails_with(read_text("a.jsonl", "[]\n"), OMENDB_INVALID, "without elements"));
    CHECK(fails_with(read_text("a.jsonl", "[1]\n[1,2]\n"), OMENDB_INVALID, "line 2: 2 elements"));
    CHECK(fails_with(read_text("a.jsonl", "7\n"), OMENDB_INVALID, "neither"));
    CHECK(
        fails_with(read_text("a.jsonl", "{\"id\":1.5,\"vector\":[1]}"), OMENDB_INVALID, "\"id\""));
    CHECK(fails_with(read_text("a.jsonl", "{\"id\":1,\"id\":2,\"vector\":[1]}"), OMENDB_INVALID,
                     "twice"));
    CHECK(fails_with(read_text("a.jsonl", "{\"id\":1,\"vector\":[1]}\n[2]\n"), OMENDB_INVALID,
                     "has no \"id\""));
}

TEST(nesting_is_bounded)
{
    static char text[100002];
    struct json json;

    memset(text, '[', sizeof text - 1);
    json_begin(&json, text, sizeof text - 1);
    while (json_next(&json) == JSON_ARRAY) {
    }
    CHECK_EQ_STR(json.error, "more than 64 levels of brackets");
    CHECK_EQ_INT(json_next(&json), JSON_ERROR);
    CHECK(fails_with(read_back("a.jsonl", text, sizeof text - 1), OMENDB_INVALID, "element 0"));
}

TEST(a_line_without_end_is_refused)
{
    const size_t size = 17u << 20;
    char *text = malloc(size);
    int code;

    CHECK(text != NULL);
    memset(text, '1', size);
    code = read_back("a.csv", text, size);
    free(text);
    CHECK(fails_with(code, OMENDB_TOOBIG, "16 MiB"));
}

TEST(names_that_cannot_be_opened_say_so)
{
    memset(&failure, 0, sizeof failure);
    CHECK_EQ_INT(reader_open(&reader, "/nonexistent/a.npy", NULL, &failure), OMENDB_NOTFOUND);
    memset(&failure, 0, sizeof failure);
    CHECK_EQ_INT(reader_open(&reader, "a.txt", NULL, &failure), OMENDB_INVALID);
    CHECK(strstr(failure.message, "--format") != NULL);
    memset(&failure, 0, sizeof failure);
    CHECK_EQ_INT(reader_open(&reader, "/", "csv", &failure), OMENDB_INVALID);
    CHECK(strstr(failure.message, "directory") != NULL);
}

TEST(skipping_moves_to_the_row)
{
    unsigned char file[32] = {3, 0, 0, 0};
    const char *path = path_of("skip.fvecs");
    FILE *out = fopen(path, "wb");

    memcpy(file + 4, six, 12);
    file[16] = 3;
    memcpy(file + 20, six + 3, 12);
    CHECK(out != NULL && fwrite(file, 1, 32, out) == 32 && fclose(out) == 0);
    memset(&failure, 0, sizeof failure);
    CHECK_EQ_INT(reader_open(&reader, path, NULL, &failure), 0);
    CHECK_EQ_INT(reader_skip(&reader, 0), 0);
    CHECK_EQ_INT(reader_skip(&reader, 1), 0);
    CHECK_EQ_INT(reader_next(&reader, 9, ids, vectors, NULL, &count), 0);
    CHECK(count == 1 && vectors[0] == 4);
    CHECK_EQ_INT(reader_skip(&reader, 1), OMENDB_INVALID);
    reader_close(&reader);
    unlink(path);
}

/* Every length of a good file, and bytes changed at random: rows or a failure with a sentence,
 * never a crash (the sanitizers watch). */
static int survives(const char *name, const unsigned char *good, size_t size)
{
    static const char noise[] = "{}[],:\"\\09-.e'()";
    static uint64_t seed = 88172645463325252u;
    unsigned char bad[256];
    size_t i, j;

    for (i = 0; i < size; i++) {
        if (read_back(name, good, i) != OMENDB_OK && message[0] == '\0') {
            return 0;
        }
    }
    for (i = 0; i < 500; i++) {
        memcpy(bad, good, size);
        for (j = 0; j <= i % 4; j++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bad[seed % size] = (unsigned char)(i % 2 ? seed >> 32 : (uint64_t)noise[seed >> 60]);
        }
        if (read_back(name, bad, size) != OMENDB_OK && message[0] == '\0') {
            return 0;
        }
    }
    return 1;
}

TEST(damaged_files_never_crash_a_reader)
{
    static const char csv[] = "id,x,y\n1,0.5,2\n7,\"2\",3\n";
    static const char jsonl[] =
        "{\"id\": 5, \"vector\": [1, -2.5e-1]}\n{\"a\": {\"b\": [\"\\u00e9\", null]}, \"id\": 6, "
        "\"vector\": [0, 1]}\n";
    unsigned char file[256];
    size_t size =
        npy(file, "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 3), }\n", six, sizeof six);

    CHECK(survives("a.npy", file, size));
    CHECK(survives("a.csv", (const unsigned char *)csv, sizeof csv - 1));
    CHECK(survives("a.jsonl", (const unsigned char *)jsonl, sizeof jsonl - 1));
    memset(file, 0, sizeof file);
    file[0] = 3;
    memcpy(file + 4, six, 12);
    CHECK(survives("a.fvecs", file, 16));
    file[0] = 2;
    file[4] = 3;
    CHECK(survives("a.u8bin", file, 14));
    CHECK(survives("a.fbin", file, 32));
    CHECK(survives("a.bvecs", file, 12));
}

TEST_MAIN(npy_of_every_type_is_read, npy_that_cannot_be_taken_says_what_to_do,
          npy_that_lies_about_its_size_is_refused, fvecs_and_bvecs_are_read,
          fbin_and_its_relatives_are_read, csv_is_read, csv_that_is_wrong_names_line_and_column,
          jsonl_is_read, jsonl_that_is_wrong_names_line_and_column, nesting_is_bounded,
          a_line_without_end_is_refused, names_that_cannot_be_opened_say_so,
          skipping_moves_to_the_row, damaged_files_never_crash_a_reader)
