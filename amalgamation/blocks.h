/* blocks.h: the one way to bytes of an immutable file. A file is a run of blocks of 16 KiB; each
 * has a CRC32C, kept in the footer that the manifest names, and is verified when it is first
 * touched, in both io modes:
 *   OMENDB_IO_MAP    base is the mapping; the first touch of a block verifies it in place.
 *   OMENDB_IO_PREAD  base is anonymous memory of the file's size; the first touch reads the block
 *                    into it and verifies.
 * A storage whose io is BLOCKS_IO_CHECK opens files for blocks_check alone: there is no base, and
 * nothing may be touched.
 * Invariant: nobody dereferences base + offset before blocks_touch(offset, length) returned
 * OMENDB_OK at least once in the life of the object. */
#ifndef OMENDB_BLOCKS_H
#define OMENDB_BLOCKS_H

#include "internal.h"
#include "storage.h"

#include <stdatomic.h>

#define BLOCK_SHIFT 14
#define BLOCK_BYTES (UINT64_C(1) << BLOCK_SHIFT)

#define BLOCKS_IO_CHECK 2 /* beside OMENDB_IO_* */

/* `number` and `block` begin the checksum: a block in another place or of another file does not
 * match. */
OMENDB_INTERNAL uint32_t blocks_checksum(uint64_t number, uint64_t block, const void *data);

struct block_file {
    const uint8_t *base;
    uint64_t size;
    _Atomic uint64_t *verified;  /* a bit a block */
    _Atomic uint64_t unverified; /* blocks not verified yet; 0 makes every touch free */
    struct block_source *source; /* file, checksums, lock of the slow path; private to blocks.c */
};

/* Verifies all blocks of [offset, offset + length). OMENDB_OK, OMENDB_CORRUPT, OMENDB_IOERR. The
 * range is bounded here against the file, so that nothing outside is read, but callers must have
 * bounded it by a section: once all is verified touches are free. */
OMENDB_INTERNAL int blocks_touch_slow(struct block_file *file, uint64_t offset, uint64_t length);

/* Whether the bytes are the file's pages; else they are memory of the process. */
OMENDB_INTERNAL int blocks_are_mapped(const struct block_file *file);

/* The bytes will not be read again soon: a mapping gives its pages back (they come again when they
 * are touched). Nothing happens to files that are read into memory. */
OMENDB_INTERNAL void blocks_release(struct block_file *file, uint64_t offset, uint64_t length);

static inline int blocks_touch(struct block_file *file, uint64_t offset, uint64_t length)
{
    /* Acquire: the last decrement was a release, and each decrement read the one before it, so all
     * blocks are visible. */
    if (OMENDB_LIKELY(atomic_load_explicit(&file->unverified, memory_order_acquire) == 0))
        return OMENDB_OK;
    uint64_t first = offset >> BLOCK_SHIFT, last = (offset + length - 1) >> BLOCK_SHIFT;
    if (OMENDB_LIKELY(first == last && offset < file->size)) {
        uint64_t word = atomic_load_explicit(&file->verified[first >> 6], memory_order_acquire);
        if (OMENDB_LIKELY((word >> (first & 63)) & 1))
            return OMENDB_OK;
    }
    return blocks_touch_slow(file, offset, length);
}

/* Opens the data blocks [0, size) of `file`, whose number is in the checksums; reads none of them.
 * size: a multiple of BLOCK_BYTES. checksums: one a block, kept by the caller until blocks_close;
 * NULL: all blocks are taken as verified, and read now where they cannot be mapped. `file` is taken
 * over: kept where blocks are read, closed where they are mapped, left open on failure; with NULL
 * checksums it stays the caller's, and size may be any. */
OMENDB_INTERNAL int blocks_open(struct storage *storage, struct storage_file *file, uint64_t number,
                                uint64_t size, const uint32_t *checksums,
                                struct block_file *blocks);
OMENDB_INTERNAL void blocks_close(struct block_file *blocks); /* a zeroed one is OK */

/* Reads one block from the file, verified before or not, into `copy` of BLOCK_BYTES. Not for files
 * that are mapped. OMENDB_CORRUPT, OMENDB_IOERR. One thread at a time. */
OMENDB_INTERNAL int blocks_read(struct block_file *blocks, uint64_t block, uint8_t *copy);

/* Reads every block again, verified before or not, and gives `report` number and sentence of each
 * that is bad. OMENDB_IOERR where one cannot be read, OMENDB_NOMEM. */
OMENDB_INTERNAL int
blocks_check(struct block_file *blocks,
             void (*report)(void *context, uint64_t block, const char *sentence), void *context);

#endif
