/* test_ground.c: memory, errors, checksums, threads, and the contract of omendb_vfs, which both of
 * our file systems must keep. */
#include "internals.h"

#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------
 * an allocator that checks the sizes it is told, and can fail */

struct careful {
    int allocations_left; /* until failure; -1: never */
    int wrong_sizes;
    int blocks;
};

#define CAREFUL_FRONT 32 /* keeps the alignment of malloc */

static void *careful_alloc(void *context, size_t size)
{
    struct careful *careful = context;
    char *raw;
    if (careful->allocations_left == 0 || size == 0)
        return NULL;
    careful->allocations_left -= careful->allocations_left > 0;
    raw = malloc(size + CAREFUL_FRONT);
    if (raw == NULL)
        return NULL;
    memcpy(raw, &size, sizeof size);
    memset(raw + CAREFUL_FRONT, 0xA5, size);
    careful->blocks++;
    return raw + CAREFUL_FRONT;
}

static void careful_release(void *context, void *block, size_t size)
{
    struct careful *careful = context;
    char *raw = (char *)block - CAREFUL_FRONT;
    size_t told;
    memcpy(&told, raw, sizeof told);
    careful->wrong_sizes += told != size;
    careful->blocks--;
    free(raw);
}

static void *careful_resize(void *context, void *block, size_t old_size, size_t new_size)
{
    void *moved = careful_alloc(context, new_size);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, old_size < new_size ? old_size : new_size);
    careful_release(context, block, old_size);
    return moved;
}

static omendb_allocator careful_hooks(struct careful *careful)
{
    const omendb_allocator hooks = {sizeof hooks, careful, careful_alloc, careful_resize,
                                    careful_release};
    careful->allocations_left = -1;
    careful->wrong_sizes = 0;
    careful->blocks = 0;
    return hooks;
}

static int all_zero(const void *bytes, size_t size)
{
    const unsigned char *byte = bytes;
    for (size_t i = 0; i < size; i++)
        if (byte[i] != 0)
            return 0;
    return 1;
}

/* ------------------------------------------------------------------------------------------------
 * memory */

TEST(memory_counts_exactly_what_the_hooks_hold)
{
    struct careful careful;
    const omendb_allocator hooks = careful_hooks(&careful);
    struct memory memory;
    memory_init(&memory, &hooks, 0);
    char *a = memory_alloc(&memory, 100), *b = memory_zalloc(&memory, 50);
    char *c = memory_array(&memory, 10, 20), *nothing = memory_alloc(&memory, 0);
    CHECK(a != NULL && b != NULL && c != NULL && nothing != NULL);
    CHECK(all_zero(b, 50));
    CHECK_EQ_INT(memory.used, 100 + 50 + 200 + 1);
    memset(a, 7, 100);
    a = memory_resize(&memory, a, 100, 1000);
    CHECK(a != NULL && a[99] == 7);
    a = memory_resize(&memory, a, 1000, 10);
    CHECK(a != NULL && a[9] == 7);
    CHECK_EQ_INT(memory.used, 10 + 50 + 200 + 1);
    CHECK_EQ_INT(memory.peak, 1000 + 50 + 200 + 1);
    memory_free(&memory, a, 10);
    memory_free(&memory, b, 50);
    memory_free(&memory, c, 200);
    memory_free(&memory, nothing, 0);
    memory_free(&memory, NULL, 5);
    CHECK_EQ_INT(memory.used, 0);
    CHECK_EQ_INT(careful.blocks, 0);
    CHECK_EQ_INT(careful.wrong_sizes, 0);
}

TEST(memory_refuses_what_is_over_the_limit_and_keeps_the_count)
{
    struct memory memory;
    memory_init(&memory, NULL, 1000);
    void *block = memory_alloc(&memory, 900);
    CHECK(block != NULL);
    CHECK(memory_alloc(&memory, 101) == NULL);
    CHECK(strstr(omendb_errmsg(), "memory_limit of 1000 bytes") != NULL);
    CHECK(memory_resize(&memory, block, 900, 1001) == NULL);
    CHECK(memory_alloc_aligned(&memory, 50) == NULL);
    CHECK_EQ_INT(memory.used, 900);
    block = memory_resize(&memory, block, 900, 1000);
    CHECK(block != NULL);
    CHECK_EQ_INT(memory.used, 1000);
    memory_free(&memory, block, 1000);
    CHECK_EQ_INT(memory.used, 0);
    CHECK_EQ_INT(memory.peak, 1000);
}

TEST(memory_lends_searches_a_little_of_the_reserve)
{
    enum { LIMIT = 8 << 20, RESERVE = 4 << 20, SEARCH = 256 << 10, SHARE = RESERVE / 8 };
    struct memory memory;
    void *lent[SHARE / SEARCH];
    memory_init(&memory, NULL, LIMIT);
    memory.reserve = RESERVE;
    void *filled = memory_alloc(&memory, LIMIT - RESERVE);
    CHECK(filled != NULL && memory_alloc(&memory, 1) == NULL);
    memory_begin_reading();
    CHECK(memory_alloc(&memory, SEARCH + 1) == NULL);
    memory_end_reading();
    for (size_t i = 0; i < SHARE / SEARCH; i++) {
        memory_begin_reading();
        memory_begin_reading();
        lent[i] = memory_alloc(&memory, SEARCH - 1);
        memory_end_reading();
        CHECK(lent[i] != NULL && memory_alloc(&memory, 2) == NULL);
        memory_end_reading();
    }
    memory_begin_reading();
    CHECK(memory_alloc(&memory, SEARCH) == NULL);
    memory_end_reading();
    for (size_t i = 0; i < SHARE / SEARCH; i++)
        memory_free(&memory, lent[i], SEARCH - 1);
    memory_free(&memory, filled, LIMIT - RESERVE);
    CHECK_EQ_INT(memory.used, 0);
}

TEST(memory_refuses_sizes_that_overflow)
{
    struct memory memory;
    memory_init(&memory, NULL, 0);
    CHECK(memory_multiply(SIZE_MAX / 2, 3) == SIZE_MAX);
    CHECK(memory_multiply(7, 0) == 0 && memory_multiply(0, 7) == 0 && memory_multiply(6, 7) == 42);
    CHECK(memory_add(SIZE_MAX, 1) == SIZE_MAX && memory_add(1, 2) == 3);
    CHECK(memory_array(&memory, SIZE_MAX / 2, 3) == NULL);
    CHECK(memory_alloc(&memory, SIZE_MAX) == NULL);
    CHECK(memory_zalloc(&memory, (size_t)PTRDIFF_MAX + 1) == NULL);
    CHECK(memory_alloc_aligned(&memory, SIZE_MAX - 10) == NULL);
    char *block = memory_alloc(&memory, 10);
    CHECK(memory_resize(&memory, block, 10, SIZE_MAX) == NULL);
    CHECK_EQ_INT(memory.used, 10);
    memory_free(&memory, block, 10);
    CHECK_EQ_INT(memory.used, 0);
}

TEST(memory_stays_counted_when_the_hooks_fail)
{
    struct careful careful;
    const omendb_allocator hooks = careful_hooks(&careful);
    struct memory memory;
    memory_init(&memory, &hooks, 0);
    char *block = memory_alloc(&memory, 64);
    careful.allocations_left = 0;
    CHECK(memory_alloc(&memory, 10) == NULL);
    CHECK(strcmp(omendb_errmsg(), "no memory for 10 bytes") == 0);
    CHECK(memory_zalloc(&memory, 10) == NULL && memory_alloc_aligned(&memory, 10) == NULL);
    CHECK(memory_resize(&memory, block, 64, 128) == NULL);
    CHECK(memory_resize(&memory, block, 64, 32) == NULL);
    CHECK_EQ_INT(memory.used, 64);
    CHECK_EQ_INT(memory.peak, 64);
    memory_free(&memory, block, 64);
    CHECK_EQ_INT(careful.blocks, 0);
    CHECK_EQ_INT(careful.wrong_sizes, 0);
}

static void check_aligned_blocks(const omendb_allocator *hooks)
{
    static const size_t sizes[] = {0, 1, 63, 64, 4096, (4 << 20) - 1, 4 << 20, 5000001};
    struct memory memory;
    memory_init(&memory, hooks, 0);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *block = memory_alloc_aligned(&memory, sizes[i]);
        CHECK(block != NULL);
        CHECK((uintptr_t)block % (sizes[i] >= 4 << 20 ? 2 << 20 : 64) == 0);
        CHECK(all_zero(block, sizes[i]));
        memset(block, 1, sizes[i]);
        CHECK(memory.used >= sizes[i]);
        memory_free_aligned(&memory, block, sizes[i]);
        CHECK_EQ_INT(memory.used, 0);
    }
    memory_free_aligned(&memory, NULL, 100);
}

TEST(aligned_blocks_are_aligned_and_zeroed)
{
    struct careful careful;
    const omendb_allocator hooks = careful_hooks(&careful);
    check_aligned_blocks(NULL);
    check_aligned_blocks(&hooks);
    CHECK_EQ_INT(careful.blocks, 0);
    CHECK_EQ_INT(careful.wrong_sizes, 0);
}

static void *allocate_in_a_loop(void *argument)
{
    struct memory *memory = argument;
    for (int i = 0; i < 20000; i++) {
        void *block = memory_alloc(memory, 300);
        memory_free(memory, block, 300);
    }
    return NULL;
}

TEST(threads_never_pass_the_limit_together)
{
    struct memory memory;
    struct platform_thread threads[4];
    memory_init(&memory, NULL, 900);
    for (int i = 0; i < 4; i++)
        CHECK_EQ_INT(platform_thread_start(&threads[i], allocate_in_a_loop, &memory), OMENDB_OK);
    for (int i = 0; i < 4; i++)
        platform_thread_join(&threads[i]);
    CHECK_EQ_INT(memory.used, 0);
    CHECK(memory.peak <= 900 && memory.peak >= 300);
}

/* ------------------------------------------------------------------------------------------------
 * errors */

TEST(the_sentence_has_the_reason_of_the_system)
{
    CHECK_EQ_INT(error_set(OMENDB_INVALID, "dim is %d", 3), OMENDB_INVALID);
    CHECK_EQ_STR(omendb_errmsg(), "dim is 3");
    CHECK_EQ_INT(error_set(OMENDB_CORRUPT, "open: %s", error_text()), OMENDB_CORRUPT);
    CHECK_EQ_STR(error_text(), "open: dim is 3");
    CHECK_EQ_INT(error_set_system(OMENDB_IOERR, ENOSPC, "wal-%d", 1), OMENDB_IOERR);
    CHECK_EQ_STR(omendb_errmsg(), "wal-1: No space left on device");
    error_set_system(OMENDB_IOERR, 0, "alone");
    CHECK_EQ_STR(omendb_errmsg(), "alone");
    CHECK_EQ_INT(error_adopt(OMENDB_FULL, "of the leader"), OMENDB_FULL);
    CHECK_EQ_STR(omendb_errmsg(), "of the leader");
    error_adopt(OMENDB_FULL, omendb_errmsg());
    CHECK_EQ_STR(omendb_errmsg(), "of the leader");
}

TEST(a_missing_id_is_told_like_any_other_failure)
{
    char name[ERROR_NAME_BYTES];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    error_set(OMENDB_INVALID, "before");
    CHECK_EQ_INT(error_set_missing("docs", UINT64_MAX - 1), OMENDB_NOTFOUND);
    CHECK_EQ_STR(omendb_errmsg(), "id 18446744073709551614 is not in collection \"docs\"");
    CHECK_EQ_STR(omendb_errmsg(), "id 18446744073709551614 is not in collection \"docs\"");
    error_set_missing(name, 3);
    error_set(OMENDB_CORRUPT, "found: %s", error_text());
    CHECK(strncmp(omendb_errmsg(), "found: id 3 is not in collection \"nnn", 35) == 0);
    error_set_missing("docs", 4);
    error_adopt(OMENDB_FULL, "after");
    CHECK_EQ_STR(omendb_errmsg(), "after");
}

TEST(a_long_sentence_is_cut_between_characters)
{
    char text[1200];
    static const char *const characters[] = {"x", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x99\x82"};
    for (size_t kind = 0; kind < 4; kind++) {
        const size_t width = strlen(characters[kind]);
        for (size_t before = 0; before < 4; before++) {
            size_t length = before;
            memset(text, 'a', before);
            for (; length + width < 1000; length += width)
                memcpy(text + length, characters[kind], width);
            text[length] = '\0';
            error_set(OMENDB_INVALID, "%s", text);
            CHECK_EQ_INT(strlen(omendb_errmsg()), before + (511 - before) / width * width);
            error_adopt(OMENDB_INVALID, text);
            CHECK_EQ_INT(strlen(omendb_errmsg()), before + (511 - before) / width * width);
            error_set_system(OMENDB_INVALID, ENOENT, "%s", text);
            CHECK(strncmp(omendb_errmsg(), text, 500) == 0);
        }
    }
}

static void *read_own_sentence(void *argument)
{
    (void)argument;
    return omendb_errmsg()[0] == '\0' ? NULL : argument;
}

TEST(each_thread_has_its_own_sentence)
{
    struct platform_thread thread;
    void *result = NULL;
    error_set(OMENDB_INVALID, "mine");
    CHECK_EQ_INT(platform_thread_start(&thread, read_own_sentence, &thread), OMENDB_OK);
    CHECK(pthread_join(thread.handle, &result) == 0);
    CHECK(result == NULL);
    CHECK_EQ_STR(omendb_errmsg(), "mine");
}

TEST(every_code_has_a_name)
{
    for (int code = OMENDB_OK; code <= OMENDB_QUOTA; code++) {
        CHECK(omendb_strerror(code) != NULL);
        CHECK(strcmp(omendb_strerror(code), "unknown code") != 0);
    }
    CHECK_EQ_STR(omendb_strerror(OMENDB_CORRUPT), "corrupt");
    CHECK_EQ_STR(omendb_strerror(OMENDB_BUSY), "busy");
    CHECK_EQ_STR(omendb_strerror(-1), "unknown code");
    CHECK_EQ_STR(omendb_strerror(OMENDB_QUOTA + 1), "unknown code");
}

/* ------------------------------------------------------------------------------------------------
 * checksums */

TEST(checksums_equal_the_examples_of_rfc_3720)
{
    static const unsigned char read_command[48] = {
        [0] = 0x01,  [1] = 0xC0,  [16] = 0x14, [22] = 0x04,
        [27] = 0x14, [31] = 0x18, [32] = 0x28, [40] = 0x02};
    unsigned char zeros[32], ones[32], up[32], down[32];
    for (int i = 0; i < 32; i++) {
        zeros[i] = 0;
        ones[i] = 0xFF;
        up[i] = (unsigned char)i;
        down[i] = (unsigned char)(31 - i);
    }
    CHECK(checksum_crc32c(0, zeros, 32) == 0x8A9136AAu);
    CHECK(checksum_crc32c(0, ones, 32) == 0x62A8AB43u);
    CHECK(checksum_crc32c(0, up, 32) == 0x46DD794Eu);
    CHECK(checksum_crc32c(0, down, 32) == 0x113FDB5Cu);
    CHECK(checksum_crc32c(0, read_command, 48) == 0xD9963A56u);
    CHECK(checksum_crc32c(0, "123456789", 9) == 0xE3069283u);
    CHECK(checksum_crc32c(0, "", 0) == 0);
}

TEST(checksums_agree_for_all_lengths_offsets_and_cuts)
{
    static unsigned char bytes[20000];
    uint32_t random = 12345;
    for (size_t i = 0; i < sizeof bytes; i++) {
        random = random * 1664525u + 1013904223u;
        bytes[i] = (unsigned char)(random >> 24);
    }
    for (size_t length = 0; length < 300; length++)
        for (size_t offset = 0; offset < 9; offset++)
            CHECK(checksum_crc32c(0, bytes + offset, length) ==
                  ~checksum_by_table(~0u, bytes + offset, length));
    for (size_t length = 300; length < sizeof bytes; length += 311) {
        const uint32_t whole = ~checksum_by_table(~0u, bytes, length);
        const size_t cut = length * 3 / 7;
        CHECK(checksum_crc32c(0, bytes, length) == whole);
        CHECK(checksum_crc32c(checksum_crc32c(0, bytes, cut), bytes + cut, length - cut) == whole);
    }
}

/* ------------------------------------------------------------------------------------------------
 * threads */

struct hand_over {
    struct platform_mutex mutex;
    struct platform_condition condition;
    int value;
};

static void *give_a_value(void *argument)
{
    struct hand_over *shared = argument;
    platform_sleep_us(2000);
    platform_mutex_lock(&shared->mutex);
    shared->value = 42;
    platform_condition_broadcast(&shared->condition);
    platform_mutex_unlock(&shared->mutex);
    return NULL;
}

TEST(conditions_wake_and_time_out)
{
    const omendb_vfs *vfs = omendb_default_vfs();
    struct hand_over shared;
    struct platform_thread thread;
    shared.value = 0;
    CHECK_EQ_INT(platform_mutex_init(&shared.mutex), OMENDB_OK);
    CHECK_EQ_INT(platform_condition_init(&shared.condition), OMENDB_OK);
    platform_mutex_lock(&shared.mutex);
    CHECK_EQ_INT(platform_thread_start(&thread, give_a_value, &shared), OMENDB_OK);
    while (shared.value == 0)
        CHECK(platform_condition_wait_for(&shared.condition, &shared.mutex, UINT64_MAX));
    CHECK_EQ_INT(shared.value, 42);
    platform_thread_join(&thread);

    const uint64_t began = vfs->now_us(vfs->context);
    while (platform_condition_wait_for(&shared.condition, &shared.mutex, 5000)) {
    }
    CHECK(vfs->now_us(vfs->context) - began >= 4900);
    platform_mutex_unlock(&shared.mutex);
    platform_condition_destroy(&shared.condition);
    platform_mutex_destroy(&shared.mutex);
}

static void *report_whether_signals_are_blocked(void *argument)
{
    sigset_t mask;
    int *result = argument;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    *result = sigismember(&mask, SIGTERM) && sigismember(&mask, SIGALRM) &&
              !sigismember(&mask, SIGSEGV) && !sigismember(&mask, SIGBUS);
    return NULL;
}

TEST(our_threads_leave_the_signals_of_the_host_alone)
{
    struct platform_thread thread;
    sigset_t mask;
    int blocked = 0;
    CHECK_EQ_INT(platform_thread_start(&thread, report_whether_signals_are_blocked, &blocked),
                 OMENDB_OK);
    platform_thread_join(&thread);
    CHECK_EQ_INT(blocked, 1);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    CHECK_EQ_INT(sigismember(&mask, SIGTERM), 0);
}

TEST(the_process_has_cores_randomness_and_a_number)
{
    unsigned char a[300], b[300];
    platform_random(a, sizeof a);
    platform_random(b, sizeof b);
    CHECK(memcmp(a, b, sizeof a) != 0 && memcmp(a + 256, b + 256, 44) != 0);
    platform_random_fallback(a, sizeof a);
    platform_random_fallback(b, sizeof b);
    CHECK(memcmp(a, b, sizeof a) != 0);
    CHECK(platform_cores() >= 1);
    CHECK(platform_process() == (uint64_t)getpid());
    platform_yield();
    platform_pause();
}

/* ------------------------------------------------------------------------------------------------
 * file systems: what both must do. `directory` is open and empty, and is left empty. */

struct place {
    const omendb_vfs *vfs;
    void *directory;
};

static void *place_open(const struct place *place, const char *name, int flags)
{
    void *file = NULL;
    const int status = place->vfs->open(place->vfs->context, place->directory, name, flags, &file);
    return status == OMENDB_OK ? file : NULL;
}

#define READ_WRITE_CREATE (OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE)

static int count_entry(void *argument, const char *name)
{
    int *count = argument;
    (void)name;
    (*count)++;
    return 0;
}

static int entries(const struct place *place)
{
    int count = 0;
    const int status = place->vfs->list(place->vfs->context, place->directory, count_entry, &count);
    return status == OMENDB_OK ? count : -1;
}

static void check_bytes(const struct place *place)
{
    const omendb_vfs *vfs = place->vfs;
    char buffer[64];
    uint64_t size = 99;
    void *file = place_open(place, "bytes", READ_WRITE_CREATE);
    CHECK(file != NULL);
    CHECK_EQ_INT(vfs->size(vfs->context, file, &size), OMENDB_OK);
    CHECK_EQ_INT(size, 0);
    CHECK_EQ_INT(vfs->write(vfs->context, file, 10, "hello", 5), OMENDB_OK);
    CHECK_EQ_INT(vfs->read(vfs->context, file, 0, buffer, 15), OMENDB_OK);
    CHECK(all_zero(buffer, 10) && memcmp(buffer + 10, "hello", 5) == 0);
    CHECK_EQ_INT(vfs->read(vfs->context, file, 15, buffer, 0), OMENDB_OK);
    errno = 0;
    CHECK_EQ_INT(vfs->read(vfs->context, file, 11, buffer, 5), OMENDB_IOERR);
    CHECK(errno != 0);
    CHECK_EQ_INT(vfs->read(vfs->context, file, 1000, buffer, 1), OMENDB_IOERR);
    CHECK_EQ_INT(vfs->read(vfs->context, file, UINT64_MAX, buffer, 2), OMENDB_IOERR);
    errno = 0;
    CHECK_EQ_INT(vfs->write(vfs->context, file, UINT64_MAX, buffer, 2), OMENDB_FULL);
    CHECK(errno != 0);

    CHECK_EQ_INT(vfs->truncate(vfs->context, file, 12), OMENDB_OK);
    CHECK_EQ_INT(vfs->allocate(vfs->context, file, 64), OMENDB_OK);
    CHECK_EQ_INT(vfs->size(vfs->context, file, &size), OMENDB_OK);
    CHECK_EQ_INT(size, 64);
    CHECK_EQ_INT(vfs->read(vfs->context, file, 0, buffer, 64), OMENDB_OK);
    CHECK(memcmp(buffer + 10, "he", 2) == 0 && all_zero(buffer + 12, 52));
    CHECK_EQ_INT(vfs->allocate(vfs->context, file, 20), OMENDB_OK);
    CHECK_EQ_INT(vfs->allocate(vfs->context, file, 0), OMENDB_OK);
    CHECK_EQ_INT(vfs->size(vfs->context, file, &size), OMENDB_OK);
    CHECK_EQ_INT(size, 64);
    CHECK_EQ_INT(vfs->truncate(vfs->context, file, 100), OMENDB_OK);
    CHECK_EQ_INT(vfs->size(vfs->context, file, &size), OMENDB_OK);
    CHECK_EQ_INT(size, 100);
    CHECK_EQ_INT(vfs->sync(vfs->context, file), OMENDB_OK);
    CHECK_EQ_INT(vfs->close(vfs->context, file), OMENDB_OK);

    file = place_open(place, "bytes", OMENDB_OPEN_READ);
    CHECK(file != NULL);
    errno = 0;
    CHECK_EQ_INT(vfs->write(vfs->context, file, 0, "x", 1), OMENDB_IOERR);
    CHECK(errno != 0);
    CHECK_EQ_INT(vfs->close(vfs->context, file), OMENDB_OK);
    CHECK_EQ_INT(vfs->unlink(vfs->context, place->directory, "bytes"), OMENDB_OK);
}

static void check_many_small_writes(const struct place *place)
{
    const omendb_vfs *vfs = place->vfs;
    void *file = place_open(place, "small", READ_WRITE_CREATE);
    uint32_t number;
    CHECK(file != NULL);
    for (uint32_t i = 0; i < 5000; i++)
        CHECK_EQ_INT(vfs->write(vfs->context, file, (uint64_t)i * 4, &i, 4), OMENDB_OK);
    for (uint32_t i = 0; i < 5000; i++) {
        CHECK_EQ_INT(vfs->read(vfs->context, file, (uint64_t)i * 4, &number, 4), OMENDB_OK);
        CHECK_EQ_INT(number, i);
    }
    CHECK_EQ_INT(vfs->close(vfs->context, file), OMENDB_OK);
    CHECK_EQ_INT(vfs->unlink(vfs->context, place->directory, "small"), OMENDB_OK);
}

static void check_names(const struct place *place)
{
    const omendb_vfs *vfs = place->vfs;
    void *file = &file;
    errno = 0;
    CHECK_EQ_INT(vfs->open(vfs->context, place->directory, "none", OMENDB_OPEN_READ, &file),
                 OMENDB_NOTFOUND);
    CHECK(file == NULL && errno == ENOENT);
    file = place_open(place, "one", READ_WRITE_CREATE | OMENDB_OPEN_EXCLUSIVE);
    CHECK(file != NULL);
    CHECK_EQ_INT(vfs->write(vfs->context, file, 0, "1", 1), OMENDB_OK);
    CHECK_EQ_INT(vfs->close(vfs->context, file), OMENDB_OK);
    CHECK_EQ_INT(vfs->open(vfs->context, place->directory, "one",
                           READ_WRITE_CREATE | OMENDB_OPEN_EXCLUSIVE, &file),
                 OMENDB_EXISTS);
    CHECK(file == NULL && errno == EEXIST);
    file = place_open(place, "two", READ_WRITE_CREATE);
    CHECK(file != NULL);
    CHECK_EQ_INT(vfs->close(vfs->context, file), OMENDB_OK);
    CHECK_EQ_INT(entries(place), 2);

    CHECK_EQ_INT(vfs->rename(vfs->context, place->directory, "one", "two"), OMENDB_OK);
    CHECK_EQ_INT(vfs->rename(vfs->context, place->directory, "one", "two"), OMENDB_NOTFOUND);
    CHECK_EQ_INT(vfs->rename(vfs->context, place->directory, "two", "two"), OMENDB_OK);
    CHECK_EQ_INT(entries(place), 1);
    file = place_open(place, "two", OMENDB_OPEN_READ);
    CHECK(file != NULL);
    char byte = 0;
    CHECK_EQ_INT(vfs->read(vfs->context, file, 0, &byte, 1), OMENDB_OK);
    CHECK_EQ_INT(byte, '1');
    CHECK_EQ_INT(vfs->unlink(vfs->context, place->directory, "two"), OMENDB_OK);
    CHECK_EQ_INT(vfs->unlink(vfs->context, place->directory, "two"), OMENDB_NOTFOUND);
    CHECK_EQ_INT(vfs->read(vfs->context, file, 0, &byte, 1), OMENDB_OK);
    CHECK_EQ_INT(vfs->close(vfs->context, file), OMENDB_OK);
    CHECK_EQ_INT(vfs->sync_directory(vfs->context, place->directory), OMENDB_OK);
    CHECK_EQ_INT(entries(place), 0);
}

static int remove_entry(void *argument, const char *name)
{
    const struct place *place = argument;
    return place->vfs->unlink(place->vfs->context, place->directory, name);
}

static int refuse_entry(void *argument, const char *name)
{
    (void)argument;
    (void)name;
    return OMENDB_CORRUPT;
}

static void check_listing(struct place *place)
{
    const omendb_vfs *vfs = place->vfs;
    char name[32];
    for (int i = 0; i < 20; i++) {
        snprintf(name, sizeof name, "entry-%d", i);
        void *file = place_open(place, name, READ_WRITE_CREATE);
        CHECK(file != NULL);
        CHECK_EQ_INT(vfs->close(vfs->context, file), OMENDB_OK);
    }
    CHECK_EQ_INT(entries(place), 20);
    CHECK_EQ_INT(vfs->list(vfs->context, place->directory, refuse_entry, NULL), OMENDB_CORRUPT);
    CHECK_EQ_INT(vfs->list(vfs->context, place->directory, remove_entry, place), OMENDB_OK);
    CHECK_EQ_INT(entries(place), 0);
}

static void check_mapping(const struct place *place)
{
    const omendb_vfs *vfs = place->vfs;
    const void *address = NULL, *second = NULL;
    static const char text[] = "mapped bytes";
    void *file = place_open(place, "mapped", READ_WRITE_CREATE);
    CHECK(file != NULL);
    CHECK(vfs->map(vfs->context, file, 0, &address) != OMENDB_OK);
    CHECK_EQ_INT(vfs->write(vfs->context, file, 0, text, sizeof text), OMENDB_OK);
    CHECK_EQ_INT(vfs->map(vfs->context, file, sizeof text + 1, &address), OMENDB_IOERR);
    CHECK(address == NULL);
    CHECK_EQ_INT(vfs->map(vfs->context, file, sizeof text, &address), OMENDB_OK);
    CHECK_EQ_INT(vfs->map(vfs->context, file, 6, &second), OMENDB_OK);
    CHECK_EQ_INT(vfs->close(vfs->context, file), OMENDB_OK);
    CHECK_EQ_INT(vfs->unlink(vfs->context, place->directory, "mapped"), OMENDB_OK);
    for (int advice = -1; advice <= OMENDB_ADVISE_DONTNEED + 1; advice++)
        vfs->advise(vfs->context, address, sizeof text, advice);
    CHECK((uintptr_t)address % OMENDB_CACHE_LINE == 0);
    CHECK(memcmp(address, text, sizeof text) == 0 && memcmp(second, text, 6) == 0);
    vfs->unmap(vfs->context, address, sizeof text);
    CHECK(memcmp(second, text, 6) == 0);
    vfs->unmap(vfs->context, second, 6);
    CHECK_EQ_INT(entries(place), 0);
}

static void check_locks(const struct place *place)
{
    const omendb_vfs *vfs = place->vfs;
    void *a = place_open(place, "lock", READ_WRITE_CREATE), *b = place_open(place, "lock", 2);
    CHECK(a != NULL && b != NULL);
    CHECK_EQ_INT(vfs->lock(vfs->context, a, OMENDB_LOCK_EXCLUSIVE), OMENDB_OK);
    CHECK_EQ_INT(vfs->lock(vfs->context, a, OMENDB_LOCK_EXCLUSIVE), OMENDB_OK);
    CHECK_EQ_INT(vfs->lock(vfs->context, b, OMENDB_LOCK_EXCLUSIVE), OMENDB_BUSY);
    CHECK_EQ_INT(vfs->lock(vfs->context, b, OMENDB_LOCK_SHARED), OMENDB_BUSY);
    CHECK_EQ_INT(vfs->lock(vfs->context, a, OMENDB_LOCK_SHARED), OMENDB_OK);
    CHECK_EQ_INT(vfs->lock(vfs->context, b, OMENDB_LOCK_SHARED), OMENDB_OK);
    CHECK_EQ_INT(vfs->lock(vfs->context, a, OMENDB_LOCK_EXCLUSIVE), OMENDB_BUSY);
    CHECK_EQ_INT(vfs->lock(vfs->context, b, OMENDB_LOCK_NONE), OMENDB_OK);
    CHECK_EQ_INT(vfs->lock(vfs->context, a, OMENDB_LOCK_EXCLUSIVE), OMENDB_OK);
    /* Another descriptor of the file that is closed must not take the lock along. */
    void *c = place_open(place, "lock", OMENDB_OPEN_READ);
    CHECK(c != NULL);
    CHECK_EQ_INT(vfs->close(vfs->context, c), OMENDB_OK);
    CHECK_EQ_INT(vfs->lock(vfs->context, b, OMENDB_LOCK_EXCLUSIVE), OMENDB_BUSY);
    CHECK_EQ_INT(vfs->close(vfs->context, a), OMENDB_OK);
    CHECK_EQ_INT(vfs->lock(vfs->context, b, OMENDB_LOCK_EXCLUSIVE), OMENDB_OK);
    CHECK_EQ_INT(vfs->close(vfs->context, b), OMENDB_OK);
    CHECK_EQ_INT(vfs->unlink(vfs->context, place->directory, "lock"), OMENDB_OK);
}

static void check_identity_and_clock(const struct place *place)
{
    const omendb_vfs *vfs = place->vfs;
    char text[64], again[64], tiny[2];
    CHECK_EQ_INT(vfs->identity(vfs->context, place->directory, text, sizeof text), OMENDB_OK);
    CHECK_EQ_INT(vfs->identity(vfs->context, place->directory, again, sizeof again), OMENDB_OK);
    CHECK_EQ_STR(text, again);
    CHECK(text[0] != '\0');
    CHECK_EQ_INT(vfs->identity(vfs->context, place->directory, tiny, sizeof tiny), OMENDB_IOERR);
    const uint64_t before = vfs->now_us(vfs->context);
    platform_sleep_us(1000);
    CHECK(vfs->now_us(vfs->context) - before >= 1000);
}

static void check_contract(struct place *place)
{
    check_bytes(place);
    check_many_small_writes(place);
    check_names(place);
    check_listing(place);
    check_mapping(place);
    check_locks(place);
    check_identity_and_clock(place);
}

/* ------------------------------------------------------------------------------------------------
 * the file system in memory */

TEST(memory_files_keep_the_contract)
{
    struct careful careful;
    const omendb_allocator hooks = careful_hooks(&careful);
    struct memory memory;
    omendb_vfs vfs;
    struct place place;
    memory_init(&memory, &hooks, 0);
    CHECK_EQ_INT(vfs_memory_create(&memory, &vfs), OMENDB_OK);
    place.vfs = &vfs;
    CHECK_EQ_INT(vfs.open_directory(vfs.context, ":memory:", 0, &place.directory), OMENDB_OK);
    check_contract(&place);
    vfs.close_directory(vfs.context, place.directory);
    vfs_memory_destroy(&vfs);
    CHECK_EQ_INT(memory.used, 0);
    CHECK_EQ_INT(careful.blocks, 0);
    CHECK_EQ_INT(careful.wrong_sizes, 0);
}

TEST(a_mapped_memory_file_neither_moves_nor_changes)
{
    struct memory memory;
    omendb_vfs vfs;
    void *file = NULL;
    const void *address;
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(vfs_memory_create(&memory, &vfs), OMENDB_OK);
    CHECK_EQ_INT(vfs.open(vfs.context, NULL, "a", READ_WRITE_CREATE, &file), OMENDB_OK);
    CHECK_EQ_INT(vfs.allocate(vfs.context, file, 100), OMENDB_OK);
    CHECK_EQ_INT(vfs.map(vfs.context, file, 100, &address), OMENDB_OK);
    CHECK_EQ_INT(vfs.write(vfs.context, file, 0, "x", 1), OMENDB_IOERR);
    CHECK_EQ_INT(errno, ETXTBSY);
    CHECK_EQ_INT(vfs.truncate(vfs.context, file, 10), OMENDB_IOERR);
    CHECK_EQ_INT(vfs.allocate(vfs.context, file, 1000), OMENDB_IOERR);
    vfs.unmap(vfs.context, address, 100);
    CHECK_EQ_INT(vfs.write(vfs.context, file, 0, "x", 1), OMENDB_OK);
    CHECK_EQ_INT(vfs.map(vfs.context, file, 100, &address), OMENDB_OK);
    vfs_memory_destroy(&vfs); /* with the file open and mapped */
    CHECK_EQ_INT(memory.used, 0);
}

TEST(allocated_memory_files_are_not_copied)
{
    struct memory memory;
    omendb_vfs vfs;
    void *file = NULL;
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(vfs_memory_create(&memory, &vfs), OMENDB_OK);
    CHECK_EQ_INT(vfs.open(vfs.context, NULL, "a", READ_WRITE_CREATE, &file), OMENDB_OK);
    CHECK_EQ_INT(vfs.allocate(vfs.context, file, 1 << 20), OMENDB_OK);
    const uint64_t used = memory.used;
    for (uint64_t i = 0; i < 1 << 20; i += 65536)
        CHECK_EQ_INT(vfs.write(vfs.context, file, i, "x", 1), OMENDB_OK);
    CHECK_EQ_INT(memory.used, used);
    CHECK_EQ_INT(memory.peak, used);
    vfs_memory_destroy(&vfs);
}

/* Every allocation of a small scenario fails once. */
TEST(memory_files_survive_every_failed_allocation)
{
    for (int k = 0; k < 12; k++) {
        struct careful careful;
        const omendb_allocator hooks = careful_hooks(&careful);
        struct memory memory;
        omendb_vfs vfs;
        void *file = NULL;
        memory_init(&memory, &hooks, 0);
        careful.allocations_left = k;
        if (vfs_memory_create(&memory, &vfs) == OMENDB_OK) {
            if (vfs.open(vfs.context, NULL, "a", READ_WRITE_CREATE, &file) == OMENDB_OK) {
                const int status = vfs.write(vfs.context, file, 0, "12345", 5);
                CHECK(status == OMENDB_OK || (status == OMENDB_NOMEM && errno == ENOMEM));
                CHECK(vfs.allocate(vfs.context, file, 9000) != OMENDB_OK ||
                      vfs.write(vfs.context, file, 0, "12345", 5) == OMENDB_OK);
                vfs.rename(vfs.context, NULL, "a", "b");
                CHECK_EQ_INT(vfs.close(vfs.context, file), OMENDB_OK);
            } else {
                CHECK(file == NULL && errno == ENOMEM);
            }
            vfs_memory_destroy(&vfs);
        }
        CHECK_EQ_INT(careful.blocks, 0);
        CHECK_EQ_INT(memory.used, 0);
    }
}

struct memory_traffic {
    const omendb_vfs *vfs;
    const char *own;
    int failures;
};

static void *use_memory_files(void *argument)
{
    struct memory_traffic *traffic = argument;
    const omendb_vfs *vfs = traffic->vfs;
    for (uint32_t i = 0; i < 500; i++) {
        void *file = NULL;
        const void *address = NULL;
        uint32_t back = 0;
        int count = 0;
        int bad = vfs->open(vfs->context, NULL, traffic->own, READ_WRITE_CREATE, &file);
        bad |= vfs->write(vfs->context, file, (uint64_t)i * 4, &i, 4);
        bad |= vfs->read(vfs->context, file, (uint64_t)i * 4, &back, 4);
        bad |= vfs->map(vfs->context, file, 4, &address);
        bad |= vfs->close(vfs->context, file);
        bad |= vfs->list(vfs->context, NULL, count_entry, &count);
        if (address != NULL)
            vfs->unmap(vfs->context, address, 4);
        if (i % 50 == 49)
            bad |= vfs->unlink(vfs->context, NULL, traffic->own);
        traffic->failures += bad != OMENDB_OK || back != i || count < 1;
    }
    return NULL;
}

TEST(memory_files_serve_several_threads)
{
    struct memory memory;
    omendb_vfs vfs;
    struct platform_thread threads[3];
    struct memory_traffic traffic[3] = {{&vfs, "a", 0}, {&vfs, "b", 0}, {&vfs, "c", 0}};
    memory_init(&memory, NULL, 0);
    CHECK_EQ_INT(vfs_memory_create(&memory, &vfs), OMENDB_OK);
    for (int i = 0; i < 3; i++)
        CHECK_EQ_INT(platform_thread_start(&threads[i], use_memory_files, &traffic[i]), OMENDB_OK);
    for (int i = 0; i < 3; i++) {
        platform_thread_join(&threads[i]);
        CHECK_EQ_INT(traffic[i].failures, 0);
    }
    vfs_memory_destroy(&vfs);
    CHECK_EQ_INT(memory.used, 0);
}

/* ------------------------------------------------------------------------------------------------
 * the files of the operating system */

static char scratch[512]; /* a directory that exists */

static void make_scratch(void)
{
    const char *given = getenv("OMENDB_TEST_DIRECTORY");
    if (scratch[0] != '\0')
        return;
    if (given != NULL) {
        snprintf(scratch, sizeof scratch, "%s", given);
        return;
    }
    snprintf(scratch, sizeof scratch, "/tmp/omendb-test-XXXXXX");
    if (mkdtemp(scratch) == NULL)
        scratch[0] = '\0';
}

/* Opens the directory `name` below scratch, new. */
static void *open_new_directory(const char *name, char *path, size_t capacity)
{
    const omendb_vfs *vfs = omendb_default_vfs();
    void *directory = NULL;
    make_scratch();
    snprintf(path, capacity, "%s/%s", scratch, name);
    if (vfs->open_directory(vfs->context, path, 1, &directory) != OMENDB_OK)
        return NULL;
    return directory;
}

TEST(system_files_keep_the_contract)
{
    char path[600], second_identity[64], identity[64];
    const omendb_vfs *vfs = omendb_default_vfs();
    struct place place = {vfs, open_new_directory("contract", path, sizeof path)};
    void *second = NULL;
    CHECK(place.directory != NULL);
    CHECK_EQ_INT(vfs->struct_size, sizeof(omendb_vfs));
    check_contract(&place);
    CHECK_EQ_INT(vfs->open_directory(vfs->context, path, 0, &second), OMENDB_OK);
    CHECK_EQ_INT(vfs->identity(vfs->context, place.directory, identity, 64), OMENDB_OK);
    CHECK_EQ_INT(vfs->identity(vfs->context, second, second_identity, 64), OMENDB_OK);
    CHECK_EQ_STR(identity, second_identity);
    vfs->close_directory(vfs->context, second);
    vfs->close_directory(vfs->context, place.directory);
    CHECK(rmdir(path) == 0);
}

TEST(directories_are_private_and_failures_have_names)
{
    const omendb_vfs *vfs = omendb_default_vfs();
    char path[600], below[640];
    struct stat facts;
    void *directory = open_new_directory("private", path, sizeof path), *other = &other;
    CHECK(directory != NULL);
    struct place place = {vfs, directory};
    CHECK(stat(path, &facts) == 0 && (facts.st_mode & 0777) == 0700);
    void *file = place_open(&place, "file", READ_WRITE_CREATE);
    CHECK(file != NULL);
    CHECK_EQ_INT(vfs->close(vfs->context, file), OMENDB_OK);
    snprintf(below, sizeof below, "%s/file", path);
    CHECK(stat(below, &facts) == 0 && (facts.st_mode & 0777) == 0600);

    errno = 0;
    CHECK_EQ_INT(vfs->open_directory(vfs->context, below, 1, &other), OMENDB_FORMAT);
    CHECK(other == NULL && errno == ENOTDIR);
    snprintf(below, sizeof below, "%s/missing", path);
    CHECK_EQ_INT(vfs->open_directory(vfs->context, below, 0, &other), OMENDB_NOTFOUND);
    snprintf(below, sizeof below, "%s/missing/deeper", path);
    CHECK_EQ_INT(vfs->open_directory(vfs->context, below, 1, &other), OMENDB_NOTFOUND);
    CHECK_EQ_INT(vfs->open_directory(vfs->context, path, 1, &other), OMENDB_OK);
    vfs->close_directory(vfs->context, other);
    CHECK_EQ_INT(vfs->unlink(vfs->context, directory, "file"), OMENDB_OK);
    vfs->close_directory(vfs->context, directory);
    CHECK(rmdir(path) == 0);
}

TEST(links_pipes_directories_and_paths_are_not_opened)
{
    const omendb_vfs *vfs = omendb_default_vfs();
    char path[600];
    void *directory = open_new_directory("hostile", path, sizeof path), *file = &file;
    const int at = open(path, O_RDONLY | O_DIRECTORY);
    CHECK(directory != NULL && at >= 0);
    static const char *const names[] = {"link", "pipe", "folder", "../file", "", "a/b"};
    CHECK(symlinkat("/etc/passwd", at, "link") == 0);
    CHECK(mkfifoat(at, "pipe", 0600) == 0);
    CHECK(mkdirat(at, "folder", 0700) == 0);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        errno = 0;
        CHECK_EQ_INT(vfs->open(vfs->context, directory, names[i], OMENDB_OPEN_READ, &file),
                     OMENDB_IOERR);
        CHECK(file == NULL && errno != 0);
        CHECK_EQ_INT(vfs->open(vfs->context, directory, names[i], READ_WRITE_CREATE, &file),
                     OMENDB_IOERR);
    }
    CHECK_EQ_INT(vfs->unlink(vfs->context, directory, "../x"), OMENDB_IOERR);
    CHECK_EQ_INT(vfs->rename(vfs->context, directory, "pipe", "../x"), OMENDB_IOERR);
    CHECK_EQ_INT(vfs->unlink(vfs->context, directory, "link"), OMENDB_OK);
    CHECK_EQ_INT(vfs->unlink(vfs->context, directory, "pipe"), OMENDB_OK);
    CHECK(unlinkat(at, "folder", AT_REMOVEDIR) == 0 && close(at) == 0);
    vfs->close_directory(vfs->context, directory);
    CHECK(rmdir(path) == 0);
}

/* Runs `body` in a child; its answer is the number that body returned. */
static int in_child(int (*body)(const struct place *place), const struct place *place)
{
    int status = -1;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0)
        _exit(body(place));
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static int write_beyond_the_size_limit(const struct place *place)
{
    const struct rlimit limit = {4096, 4096};
    static char bytes[8192];
    void *file = place_open(place, "limited", READ_WRITE_CREATE);
    signal(SIGXFSZ, SIG_IGN);
    if (file == NULL || setrlimit(RLIMIT_FSIZE, &limit) != 0)
        return 100;
    return place->vfs->write(place->vfs->context, file, 0, bytes, sizeof bytes);
}

static int open_beyond_the_descriptor_limit(const struct place *place)
{
    const struct rlimit limit = {3, 3};
    void *file = NULL;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 100;
    return place->vfs->open(place->vfs->context, place->directory, "limited", 1, &file);
}

static int open_as_somebody_else(const struct place *place)
{
    void *file = NULL;
    if (geteuid() != 0)
        return OMENDB_PERMISSION; /* only root can become somebody else */
    if (setgid(65534) != 0 || setuid(65534) != 0)
        return 100;
    const int opened = place->vfs->open(place->vfs->context, place->directory, "limited", 1, &file);
    const int created =
        place->vfs->open(place->vfs->context, place->directory, "own", READ_WRITE_CREATE, &file);
    return opened == created ? opened : 101;
}

static int lock_in_child(const struct place *place)
{
    void *file = place_open(place, "limited", OMENDB_OPEN_WRITE);
    return file == NULL ? 100 : place->vfs->lock(place->vfs->context, file, OMENDB_LOCK_SHARED);
}

TEST(the_refusals_of_the_system_have_codes_and_locks_reach_other_processes)
{
    const omendb_vfs *vfs = omendb_default_vfs();
    char path[600];
    struct place place = {vfs, open_new_directory("refusals", path, sizeof path)};
    CHECK(place.directory != NULL);
    CHECK_EQ_INT(in_child(write_beyond_the_size_limit, &place), OMENDB_FULL);
    CHECK_EQ_INT(in_child(open_beyond_the_descriptor_limit, &place), OMENDB_IOERR);
    CHECK(chmod(path, 0711) == 0);
    CHECK_EQ_INT(in_child(open_as_somebody_else, &place), OMENDB_PERMISSION);

    void *file = place_open(&place, "limited", OMENDB_OPEN_WRITE);
    CHECK(file != NULL);
    CHECK_EQ_INT(in_child(lock_in_child, &place), OMENDB_OK);
    CHECK_EQ_INT(vfs->lock(vfs->context, file, OMENDB_LOCK_EXCLUSIVE), OMENDB_OK);
    CHECK_EQ_INT(in_child(lock_in_child, &place), OMENDB_BUSY);
    CHECK_EQ_INT(vfs->close(vfs->context, file), OMENDB_OK);
    CHECK_EQ_INT(in_child(lock_in_child, &place), OMENDB_OK);

    CHECK_EQ_INT(vfs->unlink(vfs->context, place.directory, "limited"), OMENDB_OK);
    vfs->close_directory(vfs->context, place.directory);
    CHECK(rmdir(path) == 0);
    if (getenv("OMENDB_TEST_DIRECTORY") == NULL)
        CHECK(rmdir(scratch) == 0);
}

struct sorted_item {
    uint64_t key;
    uint32_t check; /* of the key: items stay whole */
};

static uint64_t items_compared;

static int compare_items(const void *left, const void *right)
{
    const struct sorted_item *a = left, *b = right;
    items_compared++;
    return a->key < b->key ? -1 : a->key > b->key;
}

/* Keys by shape: random, ascending, descending, all equal, few different, an organ pipe. */
static uint64_t sort_key(int shape, size_t i, size_t count)
{
    const uint64_t random = (i * UINT64_C(0x9e3779b97f4a7c15)) ^ (i << 7);
    switch (shape) {
    case 0:
        return random;
    case 1:
        return i;
    case 2:
        return count - i;
    case 3:
        return 7;
    case 4:
        return random >> 62;
    default:
        return i < count / 2 ? i : count - i;
    }
}

TEST(sorting_orders_every_shape_and_keeps_items_whole)
{
    static struct sorted_item items[100000];
    static const size_t counts[] = {0, 1, 2, 3, 15, 16, 17, 18, 100, 1000, 100000};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        for (int shape = 0; shape < 6; shape++) {
            uint64_t before = 0, after = 0;
            for (size_t i = 0; i < counts[c]; i++) {
                items[i].key = sort_key(shape, i, counts[c]);
                items[i].check = (uint32_t)(items[i].key ^ items[i].key >> 32);
                before += items[i].key * items[i].key;
            }
            sort_array(items, counts[c], sizeof items[0], compare_items);
            for (size_t i = 0; i < counts[c]; i++) {
                CHECK(i == 0 || items[i - 1].key <= items[i].key);
                CHECK(items[i].check == (uint32_t)(items[i].key ^ items[i].key >> 32));
                after += items[i].key * items[i].key;
            }
            CHECK(before == after);
        }
    }
}

static int item_before(const void *left, const void *right)
{
    return compare_items(left, right) < 0;
}

static int items_ascend(const struct sorted_item *items, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (items[i].key != i + 1)
            return 0;
    return 1;
}

TEST(what_is_far_from_its_place_is_sorted_too)
{
    enum { COUNT = 200000 };
    static struct sorted_item items[COUNT];
    for (size_t i = 0; i < COUNT; i++)
        items[i].key = COUNT - i;
    items_compared = 0;
    sort_nearly_sorted(items, 0, COUNT, sizeof items[0], item_before, compare_items);
    CHECK(items_compared < UINT64_C(200) * COUNT); /* one by one: 100,000 each */
    CHECK(items_ascend(items, COUNT));
    for (size_t i = 0; i + 1 < COUNT; i += 2) {
        const struct sorted_item kept = items[i];
        items[i] = items[i + 1];
        items[i + 1] = kept;
    }
    sort_nearly_sorted(items, 1, COUNT, sizeof items[0], item_before, compare_items);
    CHECK(items_ascend(items, COUNT));
}

/* What makes quicksort with a median of three quadratic (McIlroy 1999): keys are settled only when
 * they are compared, so that the pivot is always among the smallest. */
static uint32_t killer_values[4096], killer_solid, killer_candidate;
static uint64_t killer_comparisons;

static int compare_against_killer(const void *left, const void *right)
{
    const uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    const uint32_t gas = UINT32_MAX;
    killer_comparisons++;
    if (killer_values[a] == gas && killer_values[b] == gas)
        killer_values[a == killer_candidate ? a : b] = killer_solid++;
    if (killer_values[a] == gas)
        killer_candidate = a;
    else if (killer_values[b] == gas)
        killer_candidate = b;
    return killer_values[a] < killer_values[b] ? -1 : killer_values[a] > killer_values[b];
}

TEST(sorting_is_never_quadratic)
{
    enum { COUNT = 4096 };
    uint32_t items[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        items[i] = i;
        killer_values[i] = UINT32_MAX;
    }
    sort_array(items, COUNT, sizeof items[0], compare_against_killer);
    CHECK(killer_comparisons < UINT64_C(8) * COUNT * 12);
    for (size_t i = 1; i < COUNT; i++)
        CHECK(killer_values[items[i - 1]] <= killer_values[items[i]]);
}

TEST_MAIN(sorting_orders_every_shape_and_keeps_items_whole, sorting_is_never_quadratic,
          what_is_far_from_its_place_is_sorted_too, memory_counts_exactly_what_the_hooks_hold,
          memory_refuses_what_is_over_the_limit_and_keeps_the_count,
          memory_lends_searches_a_little_of_the_reserve, memory_refuses_sizes_that_overflow,
          memory_stays_counted_when_the_hooks_fail, aligned_blocks_are_aligned_and_zeroed,
          threads_never_pass_the_limit_together, the_sentence_has_the_reason_of_the_system,
          a_missing_id_is_told_like_any_other_failure, a_long_sentence_is_cut_between_characters,
          each_thread_has_its_own_sentence, every_code_has_a_name,
          checksums_equal_the_examples_of_rfc_3720,
          checksums_agree_for_all_lengths_offsets_and_cuts, conditions_wake_and_time_out,
          our_threads_leave_the_signals_of_the_host_alone,
          the_process_has_cores_randomness_and_a_number, memory_files_keep_the_contract,
          a_mapped_memory_file_neither_moves_nor_changes, allocated_memory_files_are_not_copied,
          memory_files_survive_every_failed_allocation, memory_files_serve_several_threads,
          system_files_keep_the_contract, directories_are_private_and_failures_have_names,
          links_pipes_directories_and_paths_are_not_opened,
          the_refusals_of_the_system_have_codes_and_locks_reach_other_processes)
