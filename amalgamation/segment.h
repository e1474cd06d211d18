/* segment.h: immutable files of sections. A seg-<n> carries one or many parts (a pack); a part is
 * one segment of one collection: a fixed description and typed sections. An ovl-<n> is the same
 * container whose parts carry tombstones of segments, and documents of rows that were updated.
 *
 * File, little-endian (format.h has the offsets):
 *   header    64 bytes: magic "OMENDBSG", format version, three feature masks, file number,
 *             24 bytes kept for a key id and a nonce prefix, CRC32C
 *   sections  each at a multiple of 64, zeros between
 *   footer    at a multiple of 16 KiB: part directory, section directory, CRC32C of each data
 *             block (begun with file and block number: swapped blocks are caught), counts
 *   trailer   the last 32 bytes: magic, footer length, footer CRC32C
 * The manifest names the size and the footer's CRC32C. */
#ifndef OMENDB_SEGMENT_H
#define OMENDB_SEGMENT_H

#include "internal.h"
#include "blocks.h"
#include "storage.h"

enum section_type {
    SECTION_VECTORS = 1,     /* rows * vector_stride */
    SECTION_LINKS = 2,       /* indexed_rows * 2M u32 */
    SECTION_LEVELS = 3,      /* indexed_rows u8 */
    SECTION_UPPER_INDEX = 4, /* indexed_rows u32 */
    SECTION_UPPER_LINKS = 5, /* upper_count * M u32 */
    SECTION_IDS = 6,         /* rows u64, in row order */
    SECTION_SORTED_IDS =
        7, /* rows u64 ascending (ties by row); absent when IDS is itself ascending */
    SECTION_SORTED_ROWS = 8,  /* rows u32: row of each of SORTED_IDS */
    SECTION_ID_FILTER = 9,    /* blocked Bloom filter, see idmap.h */
    SECTION_TOMBSTONES = 10,  /* in overlays: ascending u32 rows */
    SECTION_CODES = 11,       /* rows * codes_stride(dim), see codes.h; may be absent */
    SECTION_CALIBRATION = 12, /* the curve of recall by effort, see calibration.h; may be absent */
    SECTION_DOCUMENT_ENDS = 13, /* rows u64: where the row's document ends among DOCUMENTS; it
                                   begins where the one before ends. Absent where no row has one, as
                                   those below; the keys where no row has a key */
    SECTION_DOCUMENTS = 14,     /* in row order, see document.h */
    SECTION_KEY_HASHES = 15,    /* 16 bytes of seed (hash.h), then of each row that has a key the
                                 * u64 hash by it, ascending (ties by row) */
    SECTION_KEY_ROWS = 16,      /* u32: row of each hash of KEY_HASHES */
    SECTION_KEY_FILTER = 17,    /* blocked Bloom filter of the hashes, see idmap.h */
    SECTION_COLUMNS = 18,  /* the fields of documents as columns, see columns.h; may be absent */
    SECTION_ID_MODEL = 19, /* of the ascending ids, see idmodel.h; may be absent */
    SECTION_OVERLAY_ROWS = 20,    /* in overlays: ascending u32 rows that were updated; their
                                     documents are those of DOCUMENT_ENDS and DOCUMENTS there */
    SECTION_OVERLAY_COMMITS = 21, /* u64: commit of each of those documents */
    SECTION_TYPES = 22
};

/* Part flags */
#define SEGMENT_IDS_ASCEND  1u
#define SEGMENT_CODES_EXACT 2u /* every code is its vector */
/* There are no codes, as no range serves these vectors; else a merge that has the memory makes
 * codes. Files of older versions never have it, which costs them one merge. */
#define SEGMENT_NO_RANGE 4u

/* Described in the footer, 96 bytes a part. */
struct part_info {
    uint64_t collection;  /* id of the collection */
    uint64_t target_file; /* overlays: segment file and part that the tombstones belong to */
    uint32_t target_part;
    uint32_t flags;
    uint32_t rows;
    uint32_t indexed_rows; /* the first ones; the rest is searched exactly */
    uint32_t upper_count;
    uint32_t entry_row;
    uint32_t entry_level;
    uint32_t M;
    uint32_t vector_stride;
    uint32_t dim;
    uint32_t scalar;
    uint32_t metric;
    uint64_t smallest_id, largest_id;
    float reference_recall; /* sampled when the graph was last known to be as good as fresh; 0:
                               unknown */
    uint32_t reference_rows;
    float code_low, code_step; /* of CODES; step 0: there are none */
};

struct section_range {
    uint64_t offset;
    uint64_t length; /* 0: absent */
};

struct segment_writer;
/* expected_bytes: a guess for preallocation, 0: none. The file is invisible to readers until the
 * manifest names it. */
OMENDB_INTERNAL int segment_writer_create(struct storage *storage, enum storage_kind kind,
                                          uint64_t number, uint64_t expected_bytes,
                                          struct segment_writer **writer);
OMENDB_INTERNAL int
segment_writer_begin_part(struct segment_writer *writer); /* sections that follow belong to it */
OMENDB_INTERNAL int segment_writer_begin_section(struct segment_writer *writer,
                                                 enum section_type type);
OMENDB_INTERNAL int segment_writer_append(struct segment_writer *writer, const void *data,
                                          size_t size);
OMENDB_INTERNAL int segment_writer_end_part(struct segment_writer *writer,
                                            const struct part_info *info);
/* Everything appended so far is handed to the file and can be mapped: used by merges, which build
 * the graph over the vectors just written. Gives a read-only block file over [0, size written),
 * blocks taken as verified; closed by segment_flush_close, before anything more is appended (a vfs
 * may refuse to write a file while it is mapped). offset: of the current part's section `type`. */
OMENDB_INTERNAL int segment_writer_flush(struct segment_writer *writer, enum section_type type,
                                         struct block_file **view, uint64_t *offset);
OMENDB_INTERNAL void segment_flush_close(struct segment_writer *writer, struct block_file *view);
/* Writes the footer, syncs (not the directory), closes. */
OMENDB_INTERNAL int segment_writer_finish(struct segment_writer *writer, uint64_t *size,
                                          uint32_t *footer_crc);
/* Frees the writer; a file that was not finished is unlinked. NULL is OK. */
OMENDB_INTERNAL void segment_writer_destroy(struct segment_writer *writer);
OMENDB_INTERNAL uint32_t
segment_writer_parts(const struct segment_writer *writer); /* begun so far */

/* An opened file; reference-counted by the caller's own means. */
struct segment_file {
    struct block_file blocks;
    enum storage_kind kind;
    uint64_t number;
    uint32_t part_count;
    struct part_info *parts;
    struct section_range *sections; /* part_count * SECTION_TYPES, by type */
    struct storage *storage;
    size_t allocated; /* private */
};
/* Verifies size, header, trailer, footer checksum, that all sections lie inside and that those of
 * segments have the bytes that their part's counts ask for (values inside are for the caller to
 * bound); data blocks when touched. */
OMENDB_INTERNAL int segment_file_open(struct storage *storage, enum storage_kind kind,
                                      uint64_t number, uint64_t size, uint32_t footer_crc,
                                      struct segment_file **file);
OMENDB_INTERNAL void segment_file_close(struct segment_file *file); /* NULL is OK */
/* Opens what is damaged as far as that is safe. Where the header is damaged the footer is enough,
 * as it has the file's number in its checksum; where that checksum is wrong it is enough that the
 * sections follow each other without a gap and have exactly the bytes that their parts ask for:
 * *sound is then 0, and what else the parts say must be compared with what is known from elsewhere.
 * Blocks have checksums of their own. size: where the footer ends, 0: at the end of the file.
 * `report` gets a sentence for each damage that was overlooked. */
OMENDB_INTERNAL int segment_file_salvage(struct storage *storage, enum storage_kind kind,
                                         uint64_t number, uint64_t size,
                                         void (*report)(void *context, const char *sentence),
                                         void *context, struct segment_file **file, int *sound);

static inline struct section_range segment_section(const struct segment_file *file, uint32_t part,
                                                   enum section_type type)
{
    return file->sections[(size_t)part * SECTION_TYPES + (size_t)type];
}

/* CRC32C of a footer of `length` bytes but for the checksum itself, which ends it; the segment's
 * number is in it. */
OMENDB_INTERNAL uint32_t segment_footer_checksum(uint64_t number, const uint8_t *footer,
                                                 size_t length);

/* Reads and verifies every block, touched before or not; `report` gets number and sentence of each
 * that is bad. OMENDB_IOERR where one cannot be read, OMENDB_NOMEM. */
OMENDB_INTERNAL int segment_file_check(struct segment_file *file,
                                       void (*report)(void *context, uint64_t block,
                                                      const char *sentence),
                                       void *context);

#endif
