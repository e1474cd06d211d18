/* test.h: all that a test program needs.
 *
 *     TEST(search_finds_what_was_added)
 *     {
 *         CHECK(found == 1);
 *         CHECK_EQ_INT(ids[0], 7);
 *     }
 *     TEST_MAIN(search_finds_what_was_added)
 *
 * A failed check prints where and what and leaves the function it is in (which returns void); the
 * test is then counted as failed, also if the check was in a helper. Each test prints one line, and
 * the last line of the program is "N passed, M failed". The program's argument, if any, is a part
 * of the names of the tests to run. */
#ifndef OMENDB_TEST_H
#define OMENDB_TEST_H

#include <stdio.h>
#include <string.h>

static int test_failures; /* failed checks of the test that runs */

#define TEST(name) static void name(void)

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            test_failures++;                                                                       \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);              \
            return;                                                                                \
        }                                                                                          \
    } while (0)

#define CHECK_EQ_INT(actual, expected)                                                             \
    do {                                                                                           \
        const long long test_actual = (long long)(actual);                                         \
        const long long test_expected = (long long)(expected);                                     \
        if (test_actual != test_expected) {                                                        \
            test_failures++;                                                                       \
            fprintf(stderr, "%s:%d: %s is %lld and not %lld\n", __FILE__, __LINE__, #actual,       \
                    test_actual, test_expected);                                                   \
            return;                                                                                \
        }                                                                                          \
    } while (0)

#define CHECK_EQ_STR(actual, expected)                                                             \
    do {                                                                                           \
        const char *test_actual = (actual);                                                        \
        const char *test_expected = (expected);                                                    \
        if (strcmp(test_actual, test_expected) != 0) {                                             \
            test_failures++;                                                                       \
            fprintf(stderr, "%s:%d: %s is \"%s\" and not \"%s\"\n", __FILE__, __LINE__, #actual,   \
                    test_actual, test_expected);                                                   \
            return;                                                                                \
        }                                                                                          \
    } while (0)

/* `names` is the list as written in TEST_MAIN: names separated by a comma and a space. */
static int test_run(int argc, char **argv, void (*const *tests)(void), size_t count,
                    const char *names)
{
    int passed = 0, failed = 0;

    for (size_t i = 0; i < count; i++) {
        char name[128];
        const size_t length = strcspn(names, ", ");

        snprintf(name, sizeof name, "%.*s", (int)length, names);
        names += length;
        names += strspn(names, ", ");
        if (argc > 1 && strstr(name, argv[1]) == NULL) {
            continue;
        }
        test_failures = 0;
        tests[i]();
        printf("%s %s\n", test_failures == 0 ? "ok" : "FAILED", name);
        fflush(stdout);
        passed += test_failures == 0;
        failed += test_failures != 0;
    }
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

#define TEST_MAIN(...)                                                                             \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        static void (*const tests[])(void) = {__VA_ARGS__};                                        \
        return test_run(argc, argv, tests, sizeof tests / sizeof tests[0], #__VA_ARGS__);          \
    }

#endif
