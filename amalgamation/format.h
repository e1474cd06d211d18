/* format.h: every byte on disk. No other file knows a magic, a version or an offset.
 *
 * All numbers are little-endian; files are read and written by copying, never by laying a struct
 * over bytes. The four kinds of file begin with 64 bytes that are arranged alike, so that one check
 * serves all of them and a later version can still be told from damage:
 *
 *    0  8  magic: "OMENDBWL" log, "OMENDBSG" segments, "OMENDBOV" overlays, "OMENDBMF" manifest
 *    8  4  format version. A larger one than 2 is refused. Files of version 1 have no sections of
 *          documents, keys, columns and models, and logs no changes with documents, and no updates
 *   12  4  features that a reader may ignore            (no bit is given out yet)
 *   16  4  features that forbid writing the database    (likewise; the manifest has those of the
 *          files that it names)
 *   20  4  features that forbid opening the file        (likewise)
 *   24 32  by kind, see below
 *   56  4  CRC32C of bytes 0 to 55
 *   60  4  zero
 *
 * Log (wal.h tells how it is read):
 *   24  8  log id: random, not 0; repeated in each record
 *   32  8  sequence of the first record
 *   40  8  number of the preceding log, 0: none
 *   48  8  final length of the preceding log
 *   64     records, each at a multiple of 8:
 *             0  4  bytes of payload
 *             4  4  CRC32C of the record's other bytes: 0 to 3, then 8 to the end, with padding
 *             8  8  sequence
 *            16  8  log id
 *            24  8  durable_upto: offset known to be on the device when this was appended; at
 *                   most the record's own
 *            32  4  type
 *            36  4  zero
 *            40     payload (commit.c has its layout), zeros to a multiple of 8
 *
 * Segments and overlays:
 *   24  8  file number
 *   32 24  zero; kept for a key id and the prefix of a nonce
 *   64     sections, each at a multiple of 64, zeros between and up to a multiple of 16,384: the
 *          data blocks
 *          footer, from there to the end of the file:
 *             parts, 96 bytes each (FORMAT_PART_*)
 *             sections, 24 bytes each, ascending by part and offset:
 *                u32 part, u32 type, u64 offset, u64 length
 *             u32 CRC32C of each data block, begun with u64 file number and u64 block number
 *             trailer of 32 bytes: "OMENDBFT", u64 bytes of the footer, u32 parts, u32 sections,
 *                u32 zero, u32 CRC32C of the footer's other bytes, begun with u64 file number
 *
 * Documents, which logs, segments and overlays have, are told in document.h, the section of
 * columns, which follow from those of a segment, in columns.h. A part of an overlay has the rows of
 * its target that ended, and those that were updated, with the documents that they got (segment.h).
 *
 * The curve of recall by effort (calibration.h), a section of segments:
 *    0  4  entries, at least 1
 *    4  4  queries in the largest sample
 *    8  4  rows of the graph when it was measured
 *   12  4  zero
 *   16  8  rows of the collection then; 0 in segments
 *   24     entries, 24 bytes each, ascending by k; of one k first those whose stretch is 0, then
 *          the others, both ascending by ef and stretch:
 *             u32 k, u32 ef, f32 stretch, f32 mean recall, f32 its lower 95 % bound, u32 mean
 *             distances of a query, at least 1
 *
 * The model of ids (idmodel.h), a section of segments; places are those of the ascending ids:
 *    0  4  pieces, at least 1 and at most the rows
 *    4  4  reach: 16; with another one the model is not used
 *    8 56  zero
 *   64     levels of keys, each of a multiple of 16 u64, those at its end UINT64_MAX: first the
 *          least id of each piece, ascending; then, while a level has more than 16 keys, one of
 *          every 16th of its keys, from the first on
 *          lines, 16 bytes each, one a piece, and one more whose place is the number of rows:
 *             f64 slope, in places; u32 place of the piece's least id; u32 zero
 *
 * Manifest:
 *   24  8  bytes of the file
 *   32  8  its number
 *   40  4  CRC32C of all bytes from 64 on
 *   44  4  1: written by a backup; 0: by who has the database open for writing
 *   48  8  id of the database: random, 0: none yet. A backup has that of its source, until it is
 *          opened for writing: what is written then has a new one
 *   64  8  commit: what is later is in the logs
 *   72  8  first log to replay, 0: none
 *   80  8  next number of a file
 *   88  8  next id of a collection
 *   96  4  files
 *  100  4  collections
 *  104     files, 24 bytes each, ascending:
 *             u64 number, u64 bytes, u32 CRC32C of the footer, u32 kind (1 segments, 2 overlays)
 *          collections, ascending by name: 88 fixed bytes (FORMAT_COLLECTION_*), of which version
 *          1 has the first 72, the name, zeros to a multiple of 8, then segments, 24 bytes each:
 *             u64 file, u32 part, u32 overlay's part, u64 overlay's file (0: none)
 *          the curve that omendb_calibrate measured, as in segments, if there is one
 *          the limits of 32 bytes, if there are some:
 *             u64 records, bytes, queries a second, writes a second; 0: no limit
 *          and the declaration of its fields (declaration.h), if there is one
 *
 * CURRENT is text: the manifest's name and a newline, the CRC32C of that line in eight hexadecimal
 * digits and a newline. It is replaced by a rename over it, never written in place.
 *
 * Rejected: varints (a few bytes in files of megabytes, for a parser with a loop at each field);
 * checksums inside the data blocks (sections would not be contiguous when mapped, and a block could
 * vouch for itself in the wrong place). */
#ifndef OMENDB_FORMAT_H
#define OMENDB_FORMAT_H

#include "internal.h"

#include <string.h>

#define FORMAT_VERSION 2
_Static_assert(FORMAT_VERSION == OMENDB_FORMAT_VERSION,
               "omendb.h states the version of these files");

#define FORMAT_MAGIC_WAL      "OMENDBWL"
#define FORMAT_MAGIC_SEGMENT  "OMENDBSG"
#define FORMAT_MAGIC_OVERLAY  "OMENDBOV"
#define FORMAT_MAGIC_MANIFEST "OMENDBMF"
#define FORMAT_MAGIC_FOOTER   "OMENDBFT"
/* A header whose only field is the id of the database of which a first backup is being made in this
 * directory. */
#define FORMAT_MAGIC_UNFINISHED "OMENDBUB"
#define FORMAT_UNFINISHED_NAME  "backup.unfinished"
#define FORMAT_MAGIC_BYTES      8

enum format_header {
    FORMAT_HEADER_VERSION = 8,
    FORMAT_HEADER_IGNORE = 12,
    FORMAT_HEADER_READ_ONLY = 16,
    FORMAT_HEADER_REFUSE = 20,
    FORMAT_HEADER_OWN = 24, /* the fields of the kind */
    FORMAT_HEADER_CRC = 56,
    FORMAT_HEADER_ZERO = 60,
    FORMAT_HEADER_BYTES = 64
};
_Static_assert(FORMAT_HEADER_VERSION == FORMAT_MAGIC_BYTES &&
                   FORMAT_HEADER_REFUSE + 4 == FORMAT_HEADER_OWN,
               "version and masks lie between magic and the fields of the kind");
_Static_assert(FORMAT_HEADER_OWN + 32 == FORMAT_HEADER_CRC &&
                   FORMAT_HEADER_ZERO + 4 == FORMAT_HEADER_BYTES,
               "32 bytes of fields, a checksum, zeros");

enum format_wal {
    FORMAT_WAL_LOG_ID = 24,
    FORMAT_WAL_FIRST_SEQUENCE = 32,
    FORMAT_WAL_PREDECESSOR = 40,
    FORMAT_WAL_PREDECESSOR_LENGTH = 48
};
_Static_assert(FORMAT_WAL_PREDECESSOR_LENGTH + 8 == FORMAT_HEADER_CRC,
               "four numbers fill the log's header");

enum format_record {
    FORMAT_RECORD_LENGTH = 0,
    FORMAT_RECORD_CRC = 4,
    FORMAT_RECORD_SEQUENCE = 8,
    FORMAT_RECORD_LOG_ID = 16,
    FORMAT_RECORD_DURABLE = 24,
    FORMAT_RECORD_TYPE = 32,
    FORMAT_RECORD_ZERO = 36,
    FORMAT_RECORD_BYTES = 40,
    FORMAT_RECORD_ALIGN = 8
};
_Static_assert(FORMAT_RECORD_ZERO + 4 == FORMAT_RECORD_BYTES &&
                   FORMAT_RECORD_BYTES % FORMAT_RECORD_ALIGN == 0,
               "a payload begins at a multiple of 8");
_Static_assert(FORMAT_HEADER_BYTES % FORMAT_RECORD_ALIGN == 0, "so does the first record");

enum format_segment {
    FORMAT_SEGMENT_NUMBER = 24,
    FORMAT_SEGMENT_KEPT = 32,
    FORMAT_SECTION_ALIGN = 64
};
_Static_assert(FORMAT_SEGMENT_KEPT + 24 == FORMAT_HEADER_CRC, "24 bytes are kept for encryption");
_Static_assert(FORMAT_HEADER_BYTES % FORMAT_SECTION_ALIGN == 0,
               "the first section follows the header");

enum format_part {
    FORMAT_PART_COLLECTION = 0,
    FORMAT_PART_TARGET_FILE = 8,
    FORMAT_PART_SMALLEST_ID = 16,
    FORMAT_PART_LARGEST_ID = 24,
    FORMAT_PART_TARGET_PART = 32,
    FORMAT_PART_FLAGS = 36,
    FORMAT_PART_ROWS = 40,
    FORMAT_PART_INDEXED_ROWS = 44,
    FORMAT_PART_UPPER_COUNT = 48,
    FORMAT_PART_ENTRY_ROW = 52,
    FORMAT_PART_ENTRY_LEVEL = 56,
    FORMAT_PART_M = 60,
    FORMAT_PART_VECTOR_STRIDE = 64,
    FORMAT_PART_DIM = 68,
    FORMAT_PART_SCALAR = 72,
    FORMAT_PART_METRIC = 76,
    FORMAT_PART_REFERENCE_RECALL = 80, /* IEEE 754 binary32 */
    FORMAT_PART_REFERENCE_ROWS = 84,
    FORMAT_PART_CODE_LOW = 88,  /* IEEE 754 binary32 */
    FORMAT_PART_CODE_STEP = 92, /* IEEE 754 binary32 */
    FORMAT_PART_BYTES = 96
};
_Static_assert(FORMAT_PART_CODE_STEP + 4 == FORMAT_PART_BYTES, "a part has no free bytes");

enum format_section {
    FORMAT_SECTION_PART = 0,
    FORMAT_SECTION_TYPE = 4,
    FORMAT_SECTION_OFFSET = 8,
    FORMAT_SECTION_LENGTH = 16,
    FORMAT_SECTION_BYTES = 24
};

enum format_trailer {
    FORMAT_TRAILER_LENGTH = 8,
    FORMAT_TRAILER_PARTS = 16,
    FORMAT_TRAILER_SECTIONS = 20,
    FORMAT_TRAILER_ZERO = 24,
    FORMAT_TRAILER_CRC = 28,
    FORMAT_TRAILER_BYTES = 32
};
_Static_assert(FORMAT_TRAILER_CRC + 4 == FORMAT_TRAILER_BYTES,
               "the footer's checksum ends the file");

enum format_manifest {
    FORMAT_MANIFEST_LENGTH = 24,
    FORMAT_MANIFEST_NUMBER = 32,
    FORMAT_MANIFEST_CRC = 40,
    FORMAT_MANIFEST_COPY = 44,
    FORMAT_MANIFEST_DATABASE = 48,
    FORMAT_MANIFEST_COMMIT = 64,
    FORMAT_MANIFEST_WAL = 72,
    FORMAT_MANIFEST_NEXT_FILE = 80,
    FORMAT_MANIFEST_NEXT_COLLECTION = 88,
    FORMAT_MANIFEST_FILES = 96,
    FORMAT_MANIFEST_COLLECTIONS = 100,
    FORMAT_MANIFEST_BYTES = 104
};
_Static_assert(FORMAT_MANIFEST_DATABASE + 8 == FORMAT_HEADER_CRC,
               "the manifest's header has no free bytes");
_Static_assert((int)FORMAT_MANIFEST_COMMIT == (int)FORMAT_HEADER_BYTES,
               "its fields follow the header");

enum format_file {
    FORMAT_FILE_NUMBER = 0,
    FORMAT_FILE_SIZE = 8,
    FORMAT_FILE_CRC = 16,
    FORMAT_FILE_KIND = 20,
    FORMAT_FILE_BYTES = 24,
    FORMAT_KIND_SEGMENT = 1,
    FORMAT_KIND_OVERLAY = 2
};

enum format_collection {
    FORMAT_COLLECTION_ID = 0,
    FORMAT_COLLECTION_NEXT_ID = 8,
    FORMAT_COLLECTION_SEED = 16,
    FORMAT_COLLECTION_DIM = 24,
    FORMAT_COLLECTION_METRIC = 28,
    FORMAT_COLLECTION_SCALAR = 32,
    FORMAT_COLLECTION_SCALE = 36, /* IEEE 754 binary32 */
    FORMAT_COLLECTION_M = 40,
    FORMAT_COLLECTION_EF_CONSTRUCTION = 44,
    FORMAT_COLLECTION_EF = 48,
    FORMAT_COLLECTION_NAME_BYTES = 52,
    FORMAT_COLLECTION_SEGMENTS = 56,
    FORMAT_COLLECTION_CALIBRATION = 60, /* bytes of the curve, 0: none */
    FORMAT_COLLECTION_ZERO = 64,
    FORMAT_COLLECTION_BYTES_OF_1 = 72,  /* in version 1 */
    FORMAT_COLLECTION_DOCUMENTS = 72,   /* bytes of the documents of visible records */
    FORMAT_COLLECTION_LIMITS = 80,      /* bytes of the limits, 0: none */
    FORMAT_COLLECTION_DECLARATION = 84, /* bytes of the declaration, 0: none */
    FORMAT_COLLECTION_BYTES = 88
};
_Static_assert(FORMAT_COLLECTION_ZERO + 8 == FORMAT_COLLECTION_BYTES_OF_1,
               "8 bytes of a collection are free");
_Static_assert(FORMAT_COLLECTION_DOCUMENTS == FORMAT_COLLECTION_BYTES_OF_1 &&
                   FORMAT_COLLECTION_DECLARATION + 4 == FORMAT_COLLECTION_BYTES,
               "what version 2 added has no free bytes");

/* In the manifest and in logs; 0: no limit. */
enum format_limits {
    FORMAT_LIMITS_RECORDS = 0,
    FORMAT_LIMITS_CONTENT = 8,
    FORMAT_LIMITS_QUERIES = 16,
    FORMAT_LIMITS_WRITES = 24,
    FORMAT_LIMITS_BYTES = 32
};

enum format_calibration {
    FORMAT_CALIBRATION_ENTRIES = 0,
    FORMAT_CALIBRATION_QUERIES = 4,
    FORMAT_CALIBRATION_ROWS = 8,
    FORMAT_CALIBRATION_ZERO = 12,
    FORMAT_CALIBRATION_ALL_ROWS = 16,
    FORMAT_CALIBRATION_BYTES = 24
};

enum format_curve {
    FORMAT_CURVE_K = 0,
    FORMAT_CURVE_EF = 4,
    FORMAT_CURVE_STRETCH = 8, /* IEEE 754 binary32, as the next two */
    FORMAT_CURVE_MEAN = 12,
    FORMAT_CURVE_LOW = 16,
    FORMAT_CURVE_COST = 20,
    FORMAT_CURVE_BYTES = 24
};
_Static_assert((int)FORMAT_CALIBRATION_BYTES % 8 == 0 && (int)FORMAT_CURVE_BYTES % 8 == 0,
               "what follows a curve in the manifest stays aligned");

enum format_model {
    FORMAT_MODEL_PIECES = 0,
    FORMAT_MODEL_REACH = 4,
    FORMAT_MODEL_ZERO = 8,
    FORMAT_MODEL_KEYS = 64
};

enum format_line {
    FORMAT_LINE_SLOPE = 0, /* IEEE 754 binary64 */
    FORMAT_LINE_PLACE = 8,
    FORMAT_LINE_ZERO = 12,
    FORMAT_LINE_BYTES = 16
};
_Static_assert(FORMAT_MODEL_ZERO + 56 == FORMAT_MODEL_KEYS &&
                   FORMAT_LINE_ZERO + 4 == FORMAT_LINE_BYTES,
               "56 bytes of a model and 4 of a line are free");

enum format_reference {
    FORMAT_REFERENCE_FILE = 0,
    FORMAT_REFERENCE_PART = 8,
    FORMAT_REFERENCE_OVERLAY_PART = 12,
    FORMAT_REFERENCE_OVERLAY_FILE = 16,
    FORMAT_REFERENCE_BYTES = 24
};

static inline void format_put32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof value);
}

static inline void format_put64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof value);
}

static inline void format_put_float(uint8_t *at, float value)
{
    memcpy(at, &value, sizeof value);
}

static inline void format_put_double(uint8_t *at, double value)
{
    memcpy(at, &value, sizeof value);
}

static inline uint32_t format_get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint64_t format_get64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline float format_get_float(const uint8_t *at)
{
    float value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline double format_get_double(const uint8_t *at)
{
    double value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline int format_is_zero(const uint8_t *at, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (at[i] != 0)
            return 0;
    }
    return 1;
}

/* `value` rounded up to a multiple of `align`, a power of two; the sum must fit. */
static inline uint64_t format_align(uint64_t value, uint64_t align)
{
    return (value + align - 1) & ~(align - 1);
}

#endif
