/* vfs_memory.c: a vfs whose files live in memory, for ":memory:".
 *
 * There is one directory, whatever path is opened. Files are a linked list: a database has few, and
 * an idle collection has none.
 *
 * Invariants:
 * - The mutex guards the list, and every field of files and handles. `each` of a listing runs
 *   outside it, while a reference keeps the entry that the listing stands on.
 * - A file goes when nothing refers to it: the name (`linked`), handles, mappings, a listing.
 * - The bytes in [size, capacity) are zero, so that extending costs nothing.
 * - The bytes of a mapped file neither move nor change: writing, truncating and allocating fail
 *   with ETXTBSY. Searches read mapped bytes without a lock.
 * - Buffers come aligned and zeroed, so that mapped bytes are as well placed as a system's mapping
 *   for the distance kernels.
 *
 * Rejected: handing out a copy for a mapping (twice the memory), and pages in a table (a mapping
 * must be one run of bytes). A writer that knows the size calls allocate first, and nothing is ever
 * copied. */
#include "platform.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "memory.h"

struct vfs_memory_file {
    struct vfs_memory_file *next;
    struct vfs_memory_handle *handles;
    uint8_t *bytes;
    uint64_t size;
    size_t capacity;
    uint64_t mappings;
    uint64_t listings; /* that stand on this file */
    int linked;
    char *name;
};

struct vfs_memory_handle {
    struct vfs_memory_handle *next; /* of the same file */
    struct vfs_memory_file *file;
    int flags;
    int lock;
};

struct vfs_memory {
    struct memory *memory;
    struct platform_mutex mutex;
    struct vfs_memory_file *files;
};

static int vfs_memory_fail(int code, int system_error)
{
    errno = system_error;
    return code;
}

/* ------------------------------------------------------------------------------------------------
 * files and their life; all with the mutex held */

static struct vfs_memory_file *vfs_memory_find(struct vfs_memory *vfs, const char *name)
{
    struct vfs_memory_file *file = vfs->files;
    while (file != NULL && !(file->linked && strcmp(file->name, name) == 0))
        file = file->next;
    return file;
}

static void vfs_memory_destroy_file(struct vfs_memory *vfs, struct vfs_memory_file *file)
{
    while (file->handles != NULL) {
        struct vfs_memory_handle *handle = file->handles;
        file->handles = handle->next;
        memory_free(vfs->memory, handle, sizeof *handle);
    }
    memory_free_aligned(vfs->memory, file->bytes, file->capacity);
    memory_free(vfs->memory, file->name, strlen(file->name) + 1);
    memory_free(vfs->memory, file, sizeof *file);
}

static void vfs_memory_release_unused(struct vfs_memory *vfs, struct vfs_memory_file *file)
{
    struct vfs_memory_file **link = &vfs->files;
    if (file->linked || file->handles != NULL || file->mappings != 0 || file->listings != 0)
        return;
    while (*link != file)
        link = &(*link)->next;
    *link = file->next;
    vfs_memory_destroy_file(vfs, file);
}

static char *vfs_memory_copy_name(struct vfs_memory *vfs, const char *name)
{
    const size_t size = strlen(name) + 1;
    char *copy = memory_alloc(vfs->memory, size);
    if (copy != NULL)
        memcpy(copy, name, size);
    return copy;
}

static struct vfs_memory_file *vfs_memory_create_file(struct vfs_memory *vfs, const char *name)
{
    struct vfs_memory_file *file = memory_zalloc(vfs->memory, sizeof *file);
    if (file == NULL)
        return NULL;
    file->name = vfs_memory_copy_name(vfs, name);
    if (file->name == NULL) {
        memory_free(vfs->memory, file, sizeof *file);
        return NULL;
    }
    file->linked = 1;
    file->next = vfs->files;
    vfs->files = file;
    return file;
}

/* Makes room for exactly `capacity` bytes. */
static int vfs_memory_reserve(struct vfs_memory *vfs, struct vfs_memory_file *file, size_t capacity)
{
    uint8_t *bytes;
    if (capacity <= file->capacity)
        return OMENDB_OK;
    bytes = memory_alloc_aligned(vfs->memory, capacity);
    if (bytes == NULL)
        return vfs_memory_fail(OMENDB_NOMEM, ENOMEM);
    if (file->size > 0)
        memcpy(bytes, file->bytes, (size_t)file->size);
    memory_free_aligned(vfs->memory, file->bytes, file->capacity);
    file->bytes = bytes;
    file->capacity = capacity;
    return OMENDB_OK;
}

static int vfs_memory_check_writable(const struct vfs_memory_handle *handle)
{
    if (!(handle->flags & OMENDB_OPEN_WRITE))
        return vfs_memory_fail(OMENDB_IOERR, EBADF);
    if (handle->file->mappings != 0)
        return vfs_memory_fail(OMENDB_IOERR, ETXTBSY);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------------------------------------
 * the directory */

static int vfs_memory_open_directory(void *context, const char *path, int create, void **directory)
{
    (void)path;
    (void)create;
    *directory = context;
    return OMENDB_OK;
}

static void vfs_memory_close_directory(void *context, void *directory)
{
    (void)context;
    (void)directory;
}

static int vfs_memory_sync_directory(void *context, void *directory)
{
    (void)context;
    (void)directory;
    return OMENDB_OK;
}

static int vfs_memory_list(void *context, void *directory,
                           int (*each)(void *argument, const char *name), void *argument)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_file *file, *next;
    char name[256];
    int status = OMENDB_OK;
    (void)directory;
    platform_mutex_lock(&vfs->mutex);
    for (file = vfs->files; file != NULL && status == OMENDB_OK; file = next) {
        if (file->linked) {
            /* A copy: `each` may rename the file. */
            memcpy(name, file->name, strlen(file->name) + 1);
            file->listings++;
            platform_mutex_unlock(&vfs->mutex);
            status = each(argument, name);
            platform_mutex_lock(&vfs->mutex);
            file->listings--;
        }
        next = file->next;
        vfs_memory_release_unused(vfs, file);
    }
    platform_mutex_unlock(&vfs->mutex);
    return status;
}

static int vfs_memory_unlink(void *context, void *directory, const char *name)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_file *file;
    (void)directory;
    platform_mutex_lock(&vfs->mutex);
    file = vfs_memory_find(vfs, name);
    if (file != NULL) {
        file->linked = 0;
        vfs_memory_release_unused(vfs, file);
    }
    platform_mutex_unlock(&vfs->mutex);
    return file != NULL ? OMENDB_OK : vfs_memory_fail(OMENDB_NOTFOUND, ENOENT);
}

/* With the mutex held. */
static int vfs_memory_rename_locked(struct vfs_memory *vfs, const char *from, const char *to)
{
    struct vfs_memory_file *file = vfs_memory_find(vfs, from);
    struct vfs_memory_file *replaced = vfs_memory_find(vfs, to);
    char *name;
    if (file == NULL)
        return vfs_memory_fail(OMENDB_NOTFOUND, ENOENT);
    if (file == replaced)
        return OMENDB_OK;
    name = vfs_memory_copy_name(vfs, to);
    if (name == NULL)
        return vfs_memory_fail(OMENDB_NOMEM, ENOMEM);
    memory_free(vfs->memory, file->name, strlen(file->name) + 1);
    file->name = name;
    if (replaced != NULL) {
        replaced->linked = 0;
        vfs_memory_release_unused(vfs, replaced);
    }
    return OMENDB_OK;
}

static int vfs_memory_rename(void *context, void *directory, const char *from, const char *to)
{
    struct vfs_memory *vfs = context;
    int status;
    (void)directory;
    if (strlen(to) > 255)
        return vfs_memory_fail(OMENDB_IOERR, ENAMETOOLONG);
    platform_mutex_lock(&vfs->mutex);
    status = vfs_memory_rename_locked(vfs, from, to);
    platform_mutex_unlock(&vfs->mutex);
    return status;
}

/* Each in-memory database is a directory of its own. */
static int vfs_memory_identity(void *context, void *directory, char *text, size_t capacity)
{
    const int length =
        snprintf(text, capacity, "memory:%" PRIxPTR, (uintptr_t)(const void *)context);
    (void)directory;
    assert(length > 0);
    if ((size_t)length >= capacity)
        return vfs_memory_fail(OMENDB_IOERR, ERANGE);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------------------------------------
 * handles */

/* With the mutex held. */
static int vfs_memory_open_locked(struct vfs_memory *vfs, const char *name, int flags,
                                  struct vfs_memory_handle **opened)
{
    struct vfs_memory_file *file = vfs_memory_find(vfs, name);
    struct vfs_memory_handle *handle;
    if (file == NULL && !(flags & OMENDB_OPEN_CREATE))
        return vfs_memory_fail(OMENDB_NOTFOUND, ENOENT);
    if (file != NULL && (flags & OMENDB_OPEN_CREATE) && (flags & OMENDB_OPEN_EXCLUSIVE))
        return vfs_memory_fail(OMENDB_EXISTS, EEXIST);
    handle = memory_zalloc(vfs->memory, sizeof *handle);
    if (handle == NULL)
        return vfs_memory_fail(OMENDB_NOMEM, ENOMEM);
    if (file == NULL)
        file = vfs_memory_create_file(vfs, name);
    if (file == NULL) {
        memory_free(vfs->memory, handle, sizeof *handle);
        return vfs_memory_fail(OMENDB_NOMEM, ENOMEM);
    }
    handle->file = file;
    handle->flags = flags;
    handle->next = file->handles;
    file->handles = handle;
    *opened = handle;
    return OMENDB_OK;
}

static int vfs_memory_open(void *context, void *directory, const char *name, int flags, void **file)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_handle *handle = NULL;
    int status;
    (void)directory;
    *file = NULL;
    if (strlen(name) > 255)
        return vfs_memory_fail(OMENDB_IOERR, ENAMETOOLONG);
    platform_mutex_lock(&vfs->mutex);
    status = vfs_memory_open_locked(vfs, name, flags, &handle);
    platform_mutex_unlock(&vfs->mutex);
    *file = handle;
    return status;
}

static int vfs_memory_close(void *context, void *file)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_handle *handle = file;
    struct vfs_memory_handle **link;
    platform_mutex_lock(&vfs->mutex);
    for (link = &handle->file->handles; *link != handle; link = &(*link)->next) {
    }
    *link = handle->next;
    vfs_memory_release_unused(vfs, handle->file);
    memory_free(vfs->memory, handle, sizeof *handle);
    platform_mutex_unlock(&vfs->mutex);
    return OMENDB_OK;
}

static int vfs_memory_lock(void *context, void *file, int lock)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_handle *handle = file;
    int taken = 0;
    platform_mutex_lock(&vfs->mutex);
    for (const struct vfs_memory_handle *other = handle->file->handles; other != NULL;
         other = other->next) {
        if (other != handle && lock != OMENDB_LOCK_NONE && other->lock != OMENDB_LOCK_NONE)
            taken |= lock == OMENDB_LOCK_EXCLUSIVE || other->lock == OMENDB_LOCK_EXCLUSIVE;
    }
    if (!taken)
        handle->lock = lock;
    platform_mutex_unlock(&vfs->mutex);
    return taken ? vfs_memory_fail(OMENDB_BUSY, EAGAIN) : OMENDB_OK;
}

/* ------------------------------------------------------------------------------------------------
 * bytes */

static int vfs_memory_size(void *context, void *file, uint64_t *size)
{
    struct vfs_memory *vfs = context;
    const struct vfs_memory_handle *handle = file;
    platform_mutex_lock(&vfs->mutex);
    *size = handle->file->size;
    platform_mutex_unlock(&vfs->mutex);
    return OMENDB_OK;
}

static int vfs_memory_read(void *context, void *file, uint64_t offset, void *buffer, size_t size)
{
    struct vfs_memory *vfs = context;
    const struct vfs_memory_file *source = ((const struct vfs_memory_handle *)file)->file;
    int inside;
    platform_mutex_lock(&vfs->mutex);
    inside = offset <= source->size && size <= source->size - offset;
    if (inside && size > 0)
        memcpy(buffer, source->bytes + offset, size);
    platform_mutex_unlock(&vfs->mutex);
    return inside ? OMENDB_OK : vfs_memory_fail(OMENDB_IOERR, EIO);
}

/* Grows by half, so that a file written piece by piece is copied a bounded number of times. */
static int vfs_memory_reserve_for_write(struct vfs_memory *vfs, struct vfs_memory_file *file,
                                        size_t end)
{
    size_t capacity = memory_add(file->capacity, file->capacity / 2);
    if (end <= file->capacity)
        return OMENDB_OK;
    capacity = capacity < 4096 ? 4096 : capacity;
    return vfs_memory_reserve(vfs, file, capacity < end ? end : capacity);
}

static int vfs_memory_write(void *context, void *file, uint64_t offset, const void *buffer,
                            size_t size)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_handle *handle = file;
    struct vfs_memory_file *target = handle->file;
    int status;
    if (offset > SIZE_MAX - size)
        return vfs_memory_fail(OMENDB_FULL, EFBIG);
    platform_mutex_lock(&vfs->mutex);
    status = vfs_memory_check_writable(handle);
    if (status == OMENDB_OK)
        status = vfs_memory_reserve_for_write(vfs, target, (size_t)offset + size);
    if (status == OMENDB_OK && size > 0) {
        memcpy(target->bytes + offset, buffer, size);
        if (offset + size > target->size)
            target->size = offset + size;
    }
    platform_mutex_unlock(&vfs->mutex);
    return status;
}

/* With the mutex held. */
static int vfs_memory_resize(struct vfs_memory *vfs, struct vfs_memory_handle *handle,
                             uint64_t size, int may_shrink)
{
    struct vfs_memory_file *file = handle->file;
    int status = vfs_memory_check_writable(handle);
    if (status != OMENDB_OK)
        return status;
    if (size > file->size) {
        status = vfs_memory_reserve(vfs, file, (size_t)size);
        if (status == OMENDB_OK)
            file->size = size;
    } else if (may_shrink && size < file->size) {
        memset(file->bytes + size, 0, (size_t)(file->size - size));
        file->size = size;
    }
    return status;
}

static int vfs_memory_set_size(void *context, void *file, uint64_t size, int may_shrink)
{
    struct vfs_memory *vfs = context;
    int status;
    if (size > SIZE_MAX)
        return vfs_memory_fail(OMENDB_FULL, EFBIG);
    platform_mutex_lock(&vfs->mutex);
    status = vfs_memory_resize(vfs, file, size, may_shrink);
    platform_mutex_unlock(&vfs->mutex);
    return status;
}

static int vfs_memory_truncate(void *context, void *file, uint64_t size)
{
    return vfs_memory_set_size(context, file, size, 1);
}

static int vfs_memory_allocate(void *context, void *file, uint64_t size)
{
    return vfs_memory_set_size(context, file, size, 0);
}

static int vfs_memory_sync(void *context, void *file)
{
    (void)context;
    (void)file;
    return OMENDB_OK;
}

static int vfs_memory_map(void *context, void *file, uint64_t size, const void **address)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_file *source = ((struct vfs_memory_handle *)file)->file;
    int inside;
    *address = NULL;
    platform_mutex_lock(&vfs->mutex);
    inside = size > 0 && size <= source->size;
    if (inside) {
        source->mappings++;
        *address = source->bytes;
    }
    platform_mutex_unlock(&vfs->mutex);
    return inside ? OMENDB_OK : vfs_memory_fail(OMENDB_IOERR, EINVAL);
}

static void vfs_memory_unmap(void *context, const void *address, uint64_t size)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_file *file;
    (void)size;
    platform_mutex_lock(&vfs->mutex);
    for (file = vfs->files; file->bytes != address; file = file->next)
        assert(file->next != NULL);
    assert(file->mappings > 0);
    file->mappings--;
    vfs_memory_release_unused(vfs, file);
    platform_mutex_unlock(&vfs->mutex);
}

static void vfs_memory_advise(void *context, const void *address, uint64_t size, int advice)
{
    (void)context;
    (void)address;
    (void)size;
    (void)advice;
}

static uint64_t vfs_memory_now_us(void *context)
{
    const omendb_vfs *system = omendb_default_vfs();
    (void)context;
    return system->now_us(system->context);
}

/* ------------------------------------------------------------------------------------------------
 * making and unmaking */

OMENDB_INTERNAL int vfs_memory_create(struct memory *memory, omendb_vfs *vfs)
{
    static const omendb_vfs functions = {
        .struct_size = sizeof(omendb_vfs),
        .open_directory = vfs_memory_open_directory,
        .close_directory = vfs_memory_close_directory,
        .sync_directory = vfs_memory_sync_directory,
        .list = vfs_memory_list,
        .rename = vfs_memory_rename,
        .unlink = vfs_memory_unlink,
        .open = vfs_memory_open,
        .close = vfs_memory_close,
        .size = vfs_memory_size,
        .read = vfs_memory_read,
        .write = vfs_memory_write,
        .truncate = vfs_memory_truncate,
        .allocate = vfs_memory_allocate,
        .sync = vfs_memory_sync,
        .map = vfs_memory_map,
        .unmap = vfs_memory_unmap,
        .advise = vfs_memory_advise,
        .lock = vfs_memory_lock,
        .identity = vfs_memory_identity,
        .now_us = vfs_memory_now_us,
    };
    struct vfs_memory *state = memory_zalloc(memory, sizeof *state);
    if (state == NULL)
        return OMENDB_NOMEM;
    if (platform_mutex_init(&state->mutex) != OMENDB_OK) {
        memory_free(memory, state, sizeof *state);
        return OMENDB_NOMEM;
    }
    state->memory = memory;
    *vfs = functions;
    vfs->context = state;
    return OMENDB_OK;
}

/* Frees everything, open handles and mappings included. */
OMENDB_INTERNAL void vfs_memory_destroy(omendb_vfs *vfs)
{
    struct vfs_memory *state = vfs->context;
    if (state == NULL)
        return;
    while (state->files != NULL) {
        struct vfs_memory_file *file = state->files;
        state->files = file->next;
        vfs_memory_destroy_file(state, file);
    }
    platform_mutex_destroy(&state->mutex);
    memory_free(state->memory, state, sizeof *state);
    vfs->context = NULL;
}
