/* readers.h: files of vectors, read row by row. */
#ifndef OMENDB_SHELL_READERS_H
#define OMENDB_SHELL_READERS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "failure.h"

#define READER_DIM_MAX      65535u
#define READER_ROWS_UNKNOWN UINT64_MAX
#define READER_NO_TEXT      SIZE_MAX

struct reader;

/* Where in reader->texts the key and the metadata of a row begin, or READER_NO_TEXT. */
struct reader_texts {
    size_t key;
    size_t metadata;
};

/* One format of files. Functions return OMENDB_OK or set reader->failure. */
struct reader_format {
    const char *name; /* what a file's name ends with, without the dot */
    bool text;
    /* Reads what is in front of the first row and sets scalar, dim, rows, has_ids, data_offset and
     * row_bytes as far as the format knows them. */
    int (*begin)(struct reader *reader);
    /* Reads one row into `vector` (dim elements of `scalar`); OMENDB_DONE when there is none. */
    int (*row)(struct reader *reader, uint64_t *id, void *vector);
};

/* What may be read by others: the first group. */
struct reader {
    omendb_scalar scalar; /* of the vectors that are handed out */
    uint32_t dim;         /* 0: the file has no rows and does not tell */
    bool has_ids;
    uint64_t rows;       /* in the file, or READER_ROWS_UNKNOWN */
    uint64_t next_row;   /* number of the row that comes next, from 0 */
    uint64_t file_bytes; /* 0: a pipe */
    uint64_t read_bytes;
    char *texts; /* keys and metadata of the rows that reader_next gave last, each with its NUL */
    size_t text_bytes; /* of them */

    const char *path; /* borrowed */
    const struct reader_format *format;
    struct failure *failure; /* borrowed */
    FILE *file;
    bool ended;   /* OMENDB_DONE was returned */
    bool pending; /* begin() has read the first row (text) or its dimension (fvecs, bvecs) */
    /* binary formats */
    uint64_t data_offset;
    uint64_t row_bytes; /* 0: rows cannot be found without reading those before */
    char converted;     /* npy: elements that are handed out as f32: 'f', 'i', 'u'; or 0 */
    uint64_t element_bytes;
    void *scratch;
    /* text formats */
    char *line;
    size_t line_length;
    size_t line_capacity;
    uint64_t line_number;
    float *values;
    size_t value_capacity;
    uint64_t pending_id;
    char delimiter;
    size_t text_capacity;
    struct reader_texts row_texts; /* of the row that was parsed last */
};

/* Opens a file.
 *
 * path:   "-" is the standard input. Borrowed until reader_close, as `failure` is.
 * format: NULL: by the end of the name. */
int reader_open(struct reader *reader, const char *path, const char *format,
                struct failure *failure);

/* Opens a .npy of ids: one-dimensional, of whole numbers. Its rows have an id and no elements. */
int reader_open_ids(struct reader *reader, const char *path, struct failure *failure);

/* Reads up to `capacity` rows; fewer where their keys and metadata have 16 MiB.
 *
 * ids:     `capacity` places; untouched unless has_ids.
 * vectors: capacity * dim elements of `scalar`; not NULL.
 * texts:   NULL, or `capacity` places.
 * count:   rows read; 0 with OMENDB_OK is the end of the file. With a failure: the whole rows
 *          before it. */
int reader_next(struct reader *reader, size_t capacity, uint64_t *ids, void *vectors,
                struct reader_texts *texts, size_t *count);

/* Leaves out rows. OMENDB_INVALID when the file has not that many. */
int reader_skip(struct reader *reader, uint64_t rows);

/* A zeroed or failed one is OK. */
void reader_close(struct reader *reader);

/* Bytes of one row as handed out. */
size_t reader_vector_bytes(const struct reader *reader);

/* The formats, for messages: "npy, fvecs, ...". */
const char *reader_format_names(void);

/* For the formats: sets the failure with the name of the file, and the line or row, in front. */
int reader_fail(struct reader *reader, int code, const char *format, ...) FAILURE_FORMAT(3, 4);

/* For the formats: reads exactly `size` bytes; `ends` (NULL: not allowed) is set where the file
 * ends in front of the first. */
int reader_bytes(struct reader *reader, void *buffer, size_t size, bool *ends);

/* For the formats: scratch memory of one row. */
int reader_scratch(struct reader *reader, size_t size);

extern const struct reader_format reader_npy;
extern const struct reader_format reader_npy_ids;
extern const struct reader_format reader_fvecs;
extern const struct reader_format reader_bvecs;
extern const struct reader_format reader_fbin;
extern const struct reader_format reader_u8bin;
extern const struct reader_format reader_i8bin;
extern const struct reader_format reader_csv;
extern const struct reader_format reader_jsonl;

#endif
