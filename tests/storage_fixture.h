/* storage_fixture.h: a storage over files in memory, for the white-box tests of the storage layer.
 * Any call of its vfs can be made to fail, and any byte of its files changed. Included after
 * omendb.c and test.h. */
#ifndef OMENDB_STORAGE_FIXTURE_H
#define OMENDB_STORAGE_FIXTURE_H

#include <stdlib.h>

enum fixture_call {
    FIXTURE_OPEN = 1,
    FIXTURE_CLOSE = 2,
    FIXTURE_SIZE = 4,
    FIXTURE_READ = 8,
    FIXTURE_WRITE = 16,
    FIXTURE_TRUNCATE = 32,
    FIXTURE_ALLOCATE = 64,
    FIXTURE_SYNC = 128,
    FIXTURE_SYNC_DIRECTORY = 256,
    FIXTURE_RENAME = 512,
    FIXTURE_UNLINK = 1024,
    FIXTURE_MAP = 2048,
    FIXTURE_ALL = 4095
};

static struct fixture {
    struct memory files; /* what the files are made of */
    struct memory memory;
    omendb_vfs inner, vfs;
    struct storage storage;
    /* faults */
    unsigned fail_calls; /* enum fixture_call: those that may fail */
    int fail_after;      /* so many of them go well first */
    int fail_for_ever;   /* or only one fails */
    int fail_code;
    int calls; /* of those in fail_calls, since fixture_fail */
    uint64_t bytes_read;
    uint64_t open_files;
    void (*before_read)(void); /* called once, before the read that so many others precede: */
    int before_read_after;
    /* memory */
    long allocations_left; /* negative: no limit */
    long allocations;
} fixture;

static int fixture_fails(enum fixture_call call)
{
    if ((fixture.fail_calls & (unsigned)call) == 0)
        return 0;
    const int index = fixture.calls++;
    errno = EIO;
    return index == fixture.fail_after || (fixture.fail_for_ever && index > fixture.fail_after);
}

static int fixture_open_file(void *context, void *directory, const char *name, int flags,
                             void **file)
{
    *file = NULL;
    if (fixture_fails(FIXTURE_OPEN))
        return fixture.fail_code;
    const int code = fixture.inner.open(context, directory, name, flags, file);
    fixture.open_files += code == OMENDB_OK;
    return code;
}

/* As a system does: the descriptor is gone, also on failure. */
static int fixture_close_file(void *context, void *file)
{
    const int fails = fixture_fails(FIXTURE_CLOSE);
    const int code = fixture.inner.close(context, file);
    fixture.open_files--;
    return fails ? fixture.fail_code : code;
}

static int fixture_size(void *context, void *file, uint64_t *size)
{
    return fixture_fails(FIXTURE_SIZE) ? fixture.fail_code
                                       : fixture.inner.size(context, file, size);
}

static int fixture_read(void *context, void *file, uint64_t offset, void *buffer, size_t size)
{
    void (*before)(void) = fixture.before_read;
    if (fixture.before_read_after > 0) {
        fixture.before_read_after--;
    } else if (before != NULL) {
        fixture.before_read = NULL;
        before();
    }
    fixture.bytes_read += size;
    return fixture_fails(FIXTURE_READ) ? fixture.fail_code
                                       : fixture.inner.read(context, file, offset, buffer, size);
}

/* A failing write has written the first half. */
static int fixture_write(void *context, void *file, uint64_t offset, const void *buffer,
                         size_t size)
{
    if (!fixture_fails(FIXTURE_WRITE))
        return fixture.inner.write(context, file, offset, buffer, size);
    fixture.inner.write(context, file, offset, buffer, size / 2);
    return fixture.fail_code;
}

static int fixture_truncate(void *context, void *file, uint64_t size)
{
    return fixture_fails(FIXTURE_TRUNCATE) ? fixture.fail_code
                                           : fixture.inner.truncate(context, file, size);
}

static int fixture_allocate(void *context, void *file, uint64_t size)
{
    return fixture_fails(FIXTURE_ALLOCATE) ? fixture.fail_code
                                           : fixture.inner.allocate(context, file, size);
}

static int fixture_sync(void *context, void *file)
{
    return fixture_fails(FIXTURE_SYNC) ? fixture.fail_code : fixture.inner.sync(context, file);
}

static int fixture_sync_directory(void *context, void *directory)
{
    return fixture_fails(FIXTURE_SYNC_DIRECTORY) ? fixture.fail_code
                                                 : fixture.inner.sync_directory(context, directory);
}

static int fixture_rename(void *context, void *directory, const char *from, const char *to)
{
    return fixture_fails(FIXTURE_RENAME) ? fixture.fail_code
                                         : fixture.inner.rename(context, directory, from, to);
}

static int fixture_unlink(void *context, void *directory, const char *name)
{
    return fixture_fails(FIXTURE_UNLINK) ? fixture.fail_code
                                         : fixture.inner.unlink(context, directory, name);
}

static int fixture_map(void *context, void *file, uint64_t size, const void **address)
{
    return fixture_fails(FIXTURE_MAP) ? fixture.fail_code
                                      : fixture.inner.map(context, file, size, address);
}

static void *fixture_alloc(void *context, size_t size)
{
    (void)context;
    fixture.allocations++;
    if (fixture.allocations_left == 0)
        return NULL;
    fixture.allocations_left -= fixture.allocations_left > 0;
    return malloc(size);
}

static void *fixture_resize(void *context, void *memory, size_t old_size, size_t new_size)
{
    (void)context;
    (void)old_size;
    fixture.allocations++;
    if (fixture.allocations_left == 0)
        return NULL;
    fixture.allocations_left -= fixture.allocations_left > 0;
    return realloc(memory, new_size);
}

static void fixture_release(void *context, void *memory, size_t size)
{
    (void)context;
    (void)size;
    free(memory);
}

/* Calls of the kinds in `calls` fail after `after` of them: one, or all that follow. calls 0:
 * nothing fails. */
static void fixture_fail(unsigned calls, int after, int for_ever, int code)
{
    fixture.fail_calls = calls;
    fixture.fail_after = after;
    fixture.fail_for_ever = for_ever;
    fixture.fail_code = code;
    fixture.calls = 0;
}

static void fixture_heal(void)
{
    fixture_fail(0, 0, 0, OMENDB_OK);
    fixture.allocations_left = -1;
}

static void fixture_begin(uint32_t io)
{
    const omendb_allocator hooks = {sizeof hooks, NULL, fixture_alloc, fixture_resize,
                                    fixture_release};
    memset(&fixture, 0, sizeof fixture);
    fixture.allocations_left = -1;
    memory_init(&fixture.files, NULL, 0);
    memory_init(&fixture.memory, &hooks, 0);
    if (vfs_memory_create(&fixture.files, &fixture.inner) != OMENDB_OK)
        abort();
    fixture.vfs = fixture.inner;
    fixture.vfs.open = fixture_open_file;
    fixture.vfs.close = fixture_close_file;
    fixture.vfs.size = fixture_size;
    fixture.vfs.read = fixture_read;
    fixture.vfs.write = fixture_write;
    fixture.vfs.truncate = fixture_truncate;
    fixture.vfs.allocate = fixture_allocate;
    fixture.vfs.sync = fixture_sync;
    fixture.vfs.sync_directory = fixture_sync_directory;
    fixture.vfs.rename = fixture_rename;
    fixture.vfs.unlink = fixture_unlink;
    fixture.vfs.map = fixture_map;
    fixture.storage.vfs = &fixture.vfs;
    fixture.storage.memory = &fixture.memory;
    fixture.storage.io = io;
    fixture.inner.open_directory(fixture.inner.context, "", 1, &fixture.storage.directory);
}

/* Bytes and files that the storage layer holds: 0 after everything was closed. */
static uint64_t fixture_held(void)
{
    return fixture.memory.used + fixture.storage.mapped_bytes + fixture.open_files;
}

static void fixture_end(void)
{
    vfs_memory_destroy(&fixture.inner);
    CHECK_EQ_INT(fixture_held(), 0);
}

static void *fixture_handle(const char *name)
{
    void *handle = NULL;
    fixture.inner.open(fixture.inner.context, fixture.storage.directory, name,
                       OMENDB_OPEN_READ | OMENDB_OPEN_WRITE, &handle);
    return handle;
}

static int fixture_exists(const char *name)
{
    void *handle = fixture_handle(name);
    if (handle != NULL)
        fixture.inner.close(fixture.inner.context, handle);
    return handle != NULL;
}

static uint64_t fixture_file_size(const char *name)
{
    uint64_t size = 0;
    void *handle = fixture_handle(name);
    fixture.inner.size(fixture.inner.context, handle, &size);
    fixture.inner.close(fixture.inner.context, handle);
    return size;
}

static void fixture_file_read(const char *name, uint64_t offset, void *bytes, size_t size)
{
    void *handle = fixture_handle(name);
    if (fixture.inner.read(fixture.inner.context, handle, offset, bytes, size) != OMENDB_OK)
        abort();
    fixture.inner.close(fixture.inner.context, handle);
}

static void fixture_file_write(const char *name, uint64_t offset, const void *bytes, size_t size)
{
    void *handle = fixture_handle(name);
    if (fixture.inner.write(fixture.inner.context, handle, offset, bytes, size) != OMENDB_OK)
        abort();
    fixture.inner.close(fixture.inner.context, handle);
}

static void fixture_file_truncate(const char *name, uint64_t size)
{
    void *handle = fixture_handle(name);
    if (fixture.inner.truncate(fixture.inner.context, handle, size) != OMENDB_OK)
        abort();
    fixture.inner.close(fixture.inner.context, handle);
}

/* Inverts the bits of `mask` in one byte; doing it twice repairs. */
static void fixture_flip(const char *name, uint64_t offset, uint8_t mask)
{
    uint8_t byte;
    fixture_file_read(name, offset, &byte, 1);
    byte ^= mask;
    fixture_file_write(name, offset, &byte, 1);
}

/* A file of these bytes, whatever was there. */
static void fixture_file_make(const char *name, const void *bytes, size_t size)
{
    void *handle = NULL;
    fixture.inner.unlink(fixture.inner.context, fixture.storage.directory, name);
    if (fixture.inner.open(fixture.inner.context, fixture.storage.directory, name,
                           OMENDB_OPEN_READ | OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE,
                           &handle) != OMENDB_OK)
        abort();
    if (fixture.inner.write(fixture.inner.context, handle, 0, bytes, size) != OMENDB_OK)
        abort();
    fixture.inner.close(fixture.inner.context, handle);
}

/* A generator of which the tests need no more than that it repeats. */
static uint64_t fixture_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *state >> 33;
}

#endif
