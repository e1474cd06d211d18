/* readers.c: opening a file of vectors, handing out its rows in batches, naming what is wrong.
 *
 * Invariant: nothing that a file says is believed before it is compared with a limit or with the
 * size of the file, and counts are compared by division, so no product can overflow. Memory is one
 * row of scratch, one line of text (16 MiB at most) and the buffer of stdio, however long the file.
 *
 * Each format gives two functions: one for what stands in front of the rows, one for a row. Reading
 * row by row through stdio costs a copy of each byte; a batch read in place would save it where
 * the layout allows, but the index behind it works a thousand times longer on each row.
 *
 * Rows are counted from 0, as numpy and the ids do; lines of text from 1, as editors do. */
#define _POSIX_C_SOURCE   200809L
#define _FILE_OFFSET_BITS 64

#include "readers.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

#define READER_BUFFER_BYTES (1u << 20)
#define READER_TEXTS_BYTES  (16u << 20) /* after which a batch is full */

static const struct reader_format *const reader_formats[] = {
    &reader_npy,   &reader_fvecs, &reader_bvecs, &reader_fbin,
    &reader_u8bin, &reader_i8bin, &reader_csv,   &reader_jsonl,
};

const char *reader_format_names(void)
{
    return "npy, fvecs, bvecs, fbin, u8bin, i8bin, csv, jsonl";
}

int reader_fail(struct reader *reader, int code, const char *format, ...)
{
    char text[800];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (reader->format != NULL && reader->format->text && reader->line_number != 0) {
        return failure_set(reader->failure, code, "%s: line %llu: %s", reader->path,
                           (unsigned long long)reader->line_number, text);
    }
    return failure_set(reader->failure, code, "%s: %s", reader->path, text);
}

static const struct reader_format *reader_find_format(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof reader_formats / sizeof *reader_formats; i++) {
        if (strcmp(reader_formats[i]->name, name) == 0) {
            return reader_formats[i];
        }
    }
    return NULL;
}

static int reader_choose_format(struct reader *reader, const char *format)
{
    const char *end = strrchr(reader->path, '.');
    const char *name = format != NULL ? format : end != NULL ? end + 1 : "";

    reader->format = reader_find_format(name);
    if (reader->format != NULL) {
        return OMENDB_OK;
    }
    if (format != NULL) {
        return failure_set(reader->failure, OMENDB_INVALID, "no format '%s'; there are %s", format,
                           reader_format_names());
    }
    return reader_fail(reader, OMENDB_INVALID,
                       "the name does not tell the format; add --format with one of %s",
                       reader_format_names());
}

static int reader_system_failure(struct reader *reader, const char *what)
{
    const int reason = errno;
    const int code = reason == ENOENT                      ? OMENDB_NOTFOUND
                     : reason == EACCES || reason == EPERM ? OMENDB_PERMISSION
                                                           : OMENDB_IOERR;

    return reader_fail(reader, code, "%s: %s", what, strerror(reason));
}

static int reader_open_file(struct reader *reader)
{
    struct stat status;
    const bool input = strcmp(reader->path, "-") == 0;

    reader->file = input ? stdin : fopen(reader->path, "rb");
    if (reader->file == NULL) {
        return reader_system_failure(reader, "cannot be opened");
    }
    if (fstat(fileno(reader->file), &status) != 0) {
        return reader_system_failure(reader, "cannot be examined");
    }
    if (S_ISDIR(status.st_mode)) {
        return reader_fail(reader, OMENDB_INVALID, "is a directory; give a file of vectors");
    }
    if (S_ISREG(status.st_mode) && !input) {
        reader->file_bytes = (uint64_t)status.st_size;
        if (reader->file_bytes == 0) {
            return reader_fail(reader, OMENDB_INVALID, "is empty");
        }
        setvbuf(reader->file, NULL, _IOFBF, READER_BUFFER_BYTES);
    }
    return OMENDB_OK;
}

static void reader_prepare(struct reader *reader, const char *path, struct failure *failure)
{
    memset(reader, 0, sizeof *reader);
    reader->path = path;
    reader->failure = failure;
    reader->rows = READER_ROWS_UNKNOWN;
    reader->row_texts = (struct reader_texts){READER_NO_TEXT, READER_NO_TEXT};
}

/* Opens the file and reads what stands in front of the rows. */
static int reader_begin(struct reader *reader)
{
    int code = reader_open_file(reader);

    if (code == OMENDB_OK) {
        code = reader->format->begin(reader);
    }
    if (code != OMENDB_OK) {
        reader_close(reader);
    }
    return code;
}

int reader_open(struct reader *reader, const char *path, const char *format,
                struct failure *failure)
{
    int code;

    reader_prepare(reader, path, failure);
    code = reader_choose_format(reader, format);
    return code == OMENDB_OK ? reader_begin(reader) : code;
}

int reader_open_ids(struct reader *reader, const char *path, struct failure *failure)
{
    reader_prepare(reader, path, failure);
    reader->format = &reader_npy_ids;
    return reader_begin(reader);
}

void reader_close(struct reader *reader)
{
    if (reader->file != NULL && reader->file != stdin) {
        fclose(reader->file);
    }
    failure_release(reader->scratch);
    failure_release(reader->line);
    failure_release(reader->values);
    failure_release(reader->texts);
    memset(reader, 0, sizeof *reader);
}

size_t reader_vector_bytes(const struct reader *reader)
{
    switch (reader->scalar) {
    case OMENDB_F32:
        return 4u * (size_t)reader->dim;
    case OMENDB_F16:
        return 2u * (size_t)reader->dim;
    default:
        return reader->dim;
    }
}

int reader_bytes(struct reader *reader, void *buffer, size_t size, bool *ends)
{
    const size_t got = fread(buffer, 1, size, reader->file);

    reader->read_bytes += got;
    if (got == size) {
        return OMENDB_OK;
    }
    if (ferror(reader->file)) {
        return reader_system_failure(reader, "cannot be read");
    }
    if (got == 0 && ends != NULL) {
        *ends = true;
        return OMENDB_OK;
    }
    return reader_fail(reader, OMENDB_INVALID,
                       "ends in the middle of row %llu; the file is cut short, copy it again",
                       (unsigned long long)reader->next_row);
}

int reader_scratch(struct reader *reader, size_t size)
{
    reader->scratch = failure_allocate(reader->failure, size, 1);
    return reader->scratch != NULL ? OMENDB_OK : OMENDB_NOMEM;
}

int reader_next(struct reader *reader, size_t capacity, uint64_t *ids, void *vectors,
                struct reader_texts *texts, size_t *count)
{
    const size_t bytes = reader_vector_bytes(reader);
    unsigned char *out = vectors;
    uint64_t id = 0;

    if (!reader->pending) {
        reader->text_bytes = 0;
    }
    for (*count = 0; *count < capacity && !reader->ended && reader->text_bytes < READER_TEXTS_BYTES;
         (*count)++) {
        int code = reader->format->row(reader, &id, out + *count * bytes);

        if (code == OMENDB_DONE) {
            reader->ended = true;
            break;
        }
        if (code != OMENDB_OK) {
            return code;
        }
        if (reader->has_ids) {
            ids[*count] = id;
        }
        if (texts != NULL) {
            texts[*count] = reader->row_texts;
        }
        reader->next_row++;
    }
    return OMENDB_OK;
}

/* Rows of equal size in a file with a size: moves there. */
static int reader_seek(struct reader *reader, uint64_t rows)
{
    const uint64_t row = reader->next_row + rows;

    if (fseeko(reader->file, (off_t)(reader->data_offset + row * reader->row_bytes), SEEK_SET) !=
        0) {
        return reader_system_failure(reader, "cannot be positioned");
    }
    reader->pending = false;
    reader->next_row = row;
    reader->read_bytes = reader->data_offset + row * reader->row_bytes;
    return OMENDB_OK;
}

static int reader_skip_one(struct reader *reader, void *vector, uint64_t *id)
{
    size_t count = 0;
    int code = reader_next(reader, 1, id, vector, NULL, &count);

    if (code == OMENDB_OK && count == 0) {
        code = reader_fail(reader, OMENDB_INVALID, "has only %llu rows",
                           (unsigned long long)reader->next_row);
    }
    return code;
}

int reader_skip(struct reader *reader, uint64_t rows)
{
    uint64_t id, i;
    void *vector;
    int code = OMENDB_OK;

    if (reader->rows != READER_ROWS_UNKNOWN && rows > reader->rows - reader->next_row) {
        return reader_fail(reader, OMENDB_INVALID, "has only %llu rows",
                           (unsigned long long)reader->rows);
    }
    if (reader->rows != READER_ROWS_UNKNOWN && reader->row_bytes != 0 && reader->file_bytes != 0) {
        return reader_seek(reader, rows);
    }
    vector = failure_allocate(reader->failure, reader_vector_bytes(reader), 1);
    if (vector == NULL) {
        return OMENDB_NOMEM;
    }
    for (i = 0; i < rows && code == OMENDB_OK; i++) {
        code = reader_skip_one(reader, vector, &id);
    }
    failure_release(vector);
    return code;
}

#undef READER_BUFFER_BYTES
#undef READER_TEXTS_BYTES
