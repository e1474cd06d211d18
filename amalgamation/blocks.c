/* blocks.c: first touch of the blocks of an immutable file.
 *
 * Invariant: a block's bit in `verified` is set (release) after its bytes at `base` were found to
 * match the checksum, and never cleared; who loads the bit (acquire) may read the bytes.
 * `unverified` is decremented once a bit, by the one thread whose fetch_or found it clear, so it
 * reaches 0 exactly when all bits are set.
 *
 * Mapped blocks are verified without a lock: two threads may both compute a checksum, which is
 * cheaper than making one wait. Blocks that are read are written into `base`, so one thread at a
 * time does that, and only for blocks whose bit is clear, at which nobody else looks.
 *
 * Rejected: verifying everything when the file is opened (opening would take a second a gigabyte),
 * and a background thread that verifies ahead (it would read cold data that nobody asked for). */
#include "blocks.h"

#include "checksum.h"
#include "error.h"
#include "format.h"
#include "memory.h"
#include "platform.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

/* Blocks that one read brings at most. */
#define BLOCKS_RUN 64

struct block_source {
    struct storage *storage;
    struct storage_file file; /* closed when mapped */
    uint64_t number;
    const uint32_t *checksums;  /* one a block; NULL: a view in which everything is verified */
    uint8_t *memory;            /* writable `base`; NULL when mapped */
    size_t words;               /* of `verified` */
    struct platform_mutex lock; /* over file, and over the blocks of `memory` whose bit is clear */
};

OMENDB_INTERNAL uint32_t blocks_checksum(uint64_t number, uint64_t block, const void *data)
{
    uint8_t place[16];
    format_put64(place, number);
    format_put64(place + 8, block);
    return checksum_crc32c(checksum_crc32c(0, place, sizeof place), data, BLOCK_BYTES);
}

static int blocks_compare(const struct block_source *source, uint64_t block, const void *data)
{
    uint32_t crc = blocks_checksum(source->number, block, data);
    if (OMENDB_LIKELY(crc == source->checksums[block]))
        return OMENDB_OK;
    return error_set(OMENDB_CORRUPT,
                     "%s: block %" PRIu64 " (offset %" PRIu64 "): checksum %08" PRIx32
                     ", expected %08" PRIx32 "; " ERROR_RESTORE,
                     source->file.name, block, block << BLOCK_SHIFT, crc, source->checksums[block]);
}

static int blocks_is_verified(struct block_file *file, uint64_t block)
{
    uint64_t word = atomic_load_explicit(&file->verified[block >> 6], memory_order_acquire);
    return (int)((word >> (block & 63)) & 1);
}

static void blocks_publish(struct block_file *file, uint64_t block)
{
    uint64_t bit = UINT64_C(1) << (block & 63);
    uint64_t before =
        atomic_fetch_or_explicit(&file->verified[block >> 6], bit, memory_order_acq_rel);
    if ((before & bit) == 0)
        atomic_fetch_sub_explicit(&file->unverified, 1, memory_order_acq_rel);
}

/* Verifies the blocks [first, end), none of which is verified yet, in place. A block is published
 * even if a later one of the run is bad. */
static int blocks_verify_run(struct block_file *file, uint64_t first, uint64_t end)
{
    for (uint64_t block = first; block < end; block++) {
        int code = blocks_compare(file->source, block, file->base + (block << BLOCK_SHIFT));
        if (code != OMENDB_OK)
            return code;
        blocks_publish(file, block);
    }
    return OMENDB_OK;
}

/* Blocks from `first` whose bit is clear, at most up to `end` and BLOCKS_RUN. */
static uint64_t blocks_run_end(struct block_file *file, uint64_t first, uint64_t end)
{
    uint64_t stop = first;
    while (stop < end && stop - first < BLOCKS_RUN && !blocks_is_verified(file, stop))
        stop++;
    return stop;
}

/* Reads the first run of unverified blocks at or after *block and moves *block behind it. */
static int blocks_read_run(struct block_file *file, uint64_t *block, uint64_t end)
{
    struct block_source *source = file->source;
    int code = OMENDB_OK;
    platform_mutex_lock(&source->lock);
    uint64_t stop = blocks_run_end(file, *block, end);
    if (stop > *block) {
        uint64_t offset = *block << BLOCK_SHIFT;
        code = storage_read(source->storage, &source->file, offset, source->memory + offset,
                            (size_t)((stop - *block) << BLOCK_SHIFT));
        if (code == OMENDB_OK)
            code = blocks_verify_run(file, *block, stop);
    }
    platform_mutex_unlock(&source->lock);
    *block = stop;
    return code;
}

OMENDB_INTERNAL int blocks_touch_slow(struct block_file *file, uint64_t offset, uint64_t length)
{
    assert(file->base != NULL);
    if (offset > file->size || length > file->size - offset)
        return error_set(OMENDB_CORRUPT,
                         "%s: %" PRIu64 " bytes at offset %" PRIu64 " lie outside its %" PRIu64
                         " bytes of data; " ERROR_RESTORE,
                         file->source->file.name, length, offset, file->size);
    if (length == 0)
        return OMENDB_OK;
    uint64_t block = offset >> BLOCK_SHIFT, end = ((offset + length - 1) >> BLOCK_SHIFT) + 1;
    while (block < end) {
        int code = OMENDB_OK;
        if (blocks_is_verified(file, block)) {
            block++;
        } else if (file->source->memory != NULL) {
            code = blocks_read_run(file, &block, end);
        } else {
            code = blocks_verify_run(file, block, block + 1);
            block++;
        }
        if (code != OMENDB_OK)
            return code;
    }
    return OMENDB_OK;
}

/* OMENDB_UNSUPPORTED where blocks must be read instead. */
static int blocks_map(struct storage *storage, struct storage_file *file, uint64_t size,
                      const void **address)
{
    const omendb_vfs *vfs = storage->vfs;
    if (storage->io != OMENDB_IO_MAP || vfs->map == NULL)
        return OMENDB_UNSUPPORTED;
    int code = vfs->map(vfs->context, file->handle, size, address);
    if (code != OMENDB_OK && code != OMENDB_UNSUPPORTED)
        return error_set(
            code, "cannot map %" PRIu64 " bytes of %s; OMENDB_IO_PREAD reads without mapping", size,
            file->name);
    if (code == OMENDB_OK)
        atomic_fetch_add_explicit(&storage->mapped_bytes, size, memory_order_relaxed);
    return code;
}

/* Finds `base`: a mapping, or memory, which for a view without checksums is filled now; nothing for
 * a file that is only checked. */
static int blocks_open_base(struct storage *storage, struct storage_file *file,
                            struct block_file *blocks)
{
    const void *address = NULL;
    if (storage->io == BLOCKS_IO_CHECK)
        return OMENDB_OK;
    int code = blocks_map(storage, file, blocks->size, &address);
    if (code != OMENDB_UNSUPPORTED) {
        blocks->base = address;
        return code;
    }
    uint8_t *memory = memory_alloc_aligned(storage->memory, memory_add((size_t)blocks->size, 0));
    if (memory == NULL)
        return OMENDB_NOMEM;
    blocks->base = memory;
    blocks->source->memory = memory;
    return blocks->source->checksums == NULL
               ? storage_read(storage, file, 0, memory, (size_t)blocks->size)
               : OMENDB_OK;
}

/* The bits of `verified`, all clear; none for a view. */
static int blocks_open_bits(struct memory *memory, struct block_file *blocks)
{
    uint64_t count = blocks->size >> BLOCK_SHIFT;
    if (blocks->source->checksums == NULL)
        return OMENDB_OK;
    size_t words = (size_t)((count + 63) / 64);
    blocks->verified = memory_zalloc(memory, memory_multiply(words, sizeof *blocks->verified));
    if (blocks->verified == NULL)
        return OMENDB_NOMEM;
    blocks->source->words = words;
    atomic_store_explicit(&blocks->unverified, count, memory_order_relaxed);
    return OMENDB_OK;
}

OMENDB_INTERNAL int blocks_are_mapped(const struct block_file *file)
{
    return file->source->memory == NULL && file->base != NULL;
}

OMENDB_INTERNAL int blocks_open(struct storage *storage, struct storage_file *file, uint64_t number,
                                uint64_t size, const uint32_t *checksums, struct block_file *blocks)
{
    memset(blocks, 0, sizeof *blocks);
    struct block_source *source = memory_zalloc(storage->memory, sizeof *source);
    if (source == NULL)
        return OMENDB_NOMEM;
    int code = platform_mutex_init(&source->lock);
    if (code != OMENDB_OK) {
        memory_free(storage->memory, source, sizeof *source);
        return error_set(code, "no memory for a lock of %s", file->name);
    }
    source->storage = storage;
    source->number = number;
    source->checksums = checksums;
    memcpy(source->file.name, file->name, sizeof file->name);
    blocks->source = source;
    blocks->size = size;
    code = blocks_open_bits(storage->memory, blocks);
    if (code == OMENDB_OK)
        code = blocks_open_base(storage, file, blocks);
    if (code != OMENDB_OK) {
        blocks_close(blocks);
        return code;
    }
    if (checksums != NULL && !blocks_are_mapped(blocks)) {
        source->file = *file;
        file->handle = NULL;
    } else if (checksums != NULL) {
        storage_close(storage,
                      file); /* nothing was written through it: a failure cannot lose anything */
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL void blocks_close(struct block_file *blocks)
{
    struct block_source *source = blocks->source;
    if (source == NULL)
        return;
    struct storage *storage = source->storage;
    if (source->memory != NULL) {
        memory_free_aligned(storage->memory, source->memory, (size_t)blocks->size);
    } else if (blocks->base != NULL) {
        storage->vfs->unmap(storage->vfs->context, blocks->base, blocks->size);
        atomic_fetch_sub_explicit(&storage->mapped_bytes, blocks->size, memory_order_relaxed);
    }
    storage_close(storage, &source->file);
    memory_free(storage->memory, blocks->verified, source->words * sizeof *blocks->verified);
    platform_mutex_destroy(&source->lock);
    memory_free(storage->memory, source, sizeof *source);
    memset(blocks, 0, sizeof *blocks);
}

OMENDB_INTERNAL void blocks_release(struct block_file *file, uint64_t offset, uint64_t length)
{
    const struct block_source *source = file->source;
    const omendb_vfs *vfs = source->storage->vfs;
    uint64_t first = (offset + BLOCK_BYTES - 1) >> BLOCK_SHIFT,
             end = (offset + length) >> BLOCK_SHIFT;
    if (!blocks_are_mapped(file) || vfs->advise == NULL || first >= end)
        return;
    vfs->advise(vfs->context, file->base + (first << BLOCK_SHIFT), (end - first) << BLOCK_SHIFT,
                OMENDB_ADVISE_DONTNEED);
}

OMENDB_INTERNAL int blocks_read(struct block_file *blocks, uint64_t block, uint8_t *copy)
{
    struct block_source *source = blocks->source;
    assert(!blocks_are_mapped(blocks) && block < blocks->size >> BLOCK_SHIFT);
    int code =
        storage_read(source->storage, &source->file, block << BLOCK_SHIFT, copy, BLOCK_BYTES);
    return code == OMENDB_OK ? blocks_compare(source, block, copy) : code;
}

OMENDB_INTERNAL int
blocks_check(struct block_file *blocks,
             void (*report)(void *context, uint64_t block, const char *sentence), void *context)
{
    struct block_source *source = blocks->source;
    uint8_t *copy = NULL;
    int result = OMENDB_OK;
    if (!blocks_are_mapped(blocks)) {
        copy = memory_alloc(source->storage->memory, BLOCK_BYTES);
        if (copy == NULL)
            return OMENDB_NOMEM;
    }
    for (uint64_t block = 0; block < blocks->size >> BLOCK_SHIFT && result == OMENDB_OK; block++) {
        const uint8_t *data = copy != NULL ? copy : blocks->base + (block << BLOCK_SHIFT);
        int code =
            copy != NULL ? blocks_read(blocks, block, copy) : blocks_compare(source, block, data);
        if (code == OMENDB_CORRUPT)
            report(context, block, error_text());
        else if (code != OMENDB_OK)
            result = code;
    }
    memory_free(source->storage->memory, copy, BLOCK_BYTES);
    return result;
}

#undef BLOCKS_RUN
