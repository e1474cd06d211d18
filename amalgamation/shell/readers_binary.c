/* readers_binary.c: the binary formats of files of vectors, all little-endian.
 *
 * - npy: "\x93NUMPY", two bytes of version, length of the header (uint16 in version 1, uint32 in 2
 *   and 3), the header (a Python dict of descr, fortran_order, shape, as text), the rows.
 * - fvecs: each row: int32 dim, dim f32; bvecs: each row: int32 dim, dim u8.
 * - fbin: uint32 rows, uint32 dim, rows * dim f32; u8bin and i8bin likewise.
 *
 * Invariant: once begin() is over, rows * row_bytes is exactly what the file has behind
 * data_offset, where the size of the file can be known. A file that is longer than its header says
 * is refused like one that is shorter: both mean that header and data do not belong together.
 *
 * The header of npy is read with a small parser for what numpy writes, not with a search for
 * substrings: keys come in any order in files of other writers. */
#include "readers.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define READER_NPY_HEADER_MAX  65536u
#define READER_FLOAT_WHOLE_MAX (1u << 24) /* every whole number up to it is a float */

static int reader_check_dim(struct reader *reader, uint64_t dim)
{
    if (dim == 0 || dim > READER_DIM_MAX) {
        return reader_fail(reader, OMENDB_INVALID,
                           "rows of %llu elements; vectors have 1 to %u. Is it a file of this "
                           "format?",
                           (unsigned long long)dim, READER_DIM_MAX);
    }
    reader->dim = (uint32_t)dim;
    return OMENDB_OK;
}

/* Compares the promise of a header with the size of the file. */
static int reader_check_size(struct reader *reader)
{
    const uint64_t bytes = reader->file_bytes - reader->data_offset;

    if (reader->file_bytes == 0) {
        return OMENDB_OK;
    }
    if (reader->data_offset > reader->file_bytes || reader->rows > bytes / reader->row_bytes) {
        return reader_fail(reader, OMENDB_INVALID,
                           "the header promises %llu rows of %llu bytes, the file has %llu bytes; "
                           "it is cut short, copy it again",
                           (unsigned long long)reader->rows, (unsigned long long)reader->row_bytes,
                           (unsigned long long)reader->file_bytes);
    }
    if (bytes != reader->rows * reader->row_bytes) {
        return reader_fail(reader, OMENDB_INVALID,
                           "%llu bytes follow the %llu rows that the header promises; is it a "
                           "file of this format?",
                           (unsigned long long)(bytes - reader->rows * reader->row_bytes),
                           (unsigned long long)reader->rows);
    }
    return OMENDB_OK;
}

/* fbin, u8bin, i8bin */

static int reader_bin_begin(struct reader *reader, omendb_scalar scalar, uint64_t element_bytes)
{
    uint32_t header[2];
    int code = reader_bytes(reader, header, sizeof header, NULL);

    if (code == OMENDB_OK) {
        code = reader_check_dim(reader, header[1]);
    }
    reader->scalar = scalar;
    reader->rows = header[0];
    reader->data_offset = sizeof header;
    reader->row_bytes = element_bytes * reader->dim;
    return code == OMENDB_OK ? reader_check_size(reader) : code;
}

static int reader_fbin_begin(struct reader *reader)
{
    return reader_bin_begin(reader, OMENDB_F32, 4);
}

static int reader_u8bin_begin(struct reader *reader)
{
    return reader_bin_begin(reader, OMENDB_U8, 1);
}

static int reader_i8bin_begin(struct reader *reader)
{
    return reader_bin_begin(reader, OMENDB_I8, 1);
}

static int reader_plain_row(struct reader *reader, uint64_t *id, void *vector)
{
    (void)id;
    return reader->next_row == reader->rows
               ? OMENDB_DONE
               : reader_bytes(reader, vector, reader_vector_bytes(reader), NULL);
}

/* fvecs, bvecs */

static int reader_vecs_begin(struct reader *reader, omendb_scalar scalar, uint64_t element_bytes)
{
    uint32_t dim = 0;
    int code = reader_bytes(reader, &dim, sizeof dim, NULL);

    if (code == OMENDB_OK) {
        code = reader_check_dim(reader, dim);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    reader->scalar = scalar;
    reader->row_bytes = sizeof dim + element_bytes * dim;
    reader->pending = true; /* the dimension of the first row is read */
    if (reader->file_bytes % reader->row_bytes != 0) {
        return reader_fail(reader, OMENDB_INVALID,
                           "%llu bytes are no whole number of rows of %u elements; the file is "
                           "cut short, or not of this format",
                           (unsigned long long)reader->file_bytes, (unsigned int)dim);
    }
    if (reader->file_bytes != 0) {
        reader->rows = reader->file_bytes / reader->row_bytes;
    }
    return OMENDB_OK;
}

static int reader_fvecs_begin(struct reader *reader)
{
    return reader_vecs_begin(reader, OMENDB_F32, 4);
}

static int reader_bvecs_begin(struct reader *reader)
{
    return reader_vecs_begin(reader, OMENDB_U8, 1);
}

static int reader_vecs_row(struct reader *reader, uint64_t *id, void *vector)
{
    uint32_t dim = reader->dim;
    bool ends = false;
    int code = OMENDB_OK;

    (void)id;
    if (!reader->pending) {
        code = reader_bytes(reader, &dim, sizeof dim, &ends);
    }
    reader->pending = false;
    if (code != OMENDB_OK || ends) {
        return ends ? OMENDB_DONE : code;
    }
    if (dim != reader->dim) {
        return reader_fail(reader, OMENDB_INVALID, "row %llu has %lu elements, those before %lu",
                           (unsigned long long)reader->next_row, (unsigned long)dim,
                           (unsigned long)reader->dim);
    }
    return reader_bytes(reader, vector, reader_vector_bytes(reader), NULL);
}

/* npy */

struct reader_npy_header {
    const char *at;
    char descr[8];
    char fortran_order[8];
    uint64_t shape[2];
    unsigned int dimensions; /* 3: that or more */
};

static void reader_npy_space(struct reader_npy_header *header)
{
    header->at += strspn(header->at, " \t\r\n");
}

static bool reader_npy_expect(struct reader_npy_header *header, char c)
{
    reader_npy_space(header);
    if (*header->at != c) {
        return false;
    }
    header->at++;
    return true;
}

/* A quoted text, or a bare word; false when it is neither or longer than `capacity` - 1. */
static bool reader_npy_text(struct reader_npy_header *header, char *text, size_t capacity)
{
    char quote[2] = {0};
    size_t length;

    reader_npy_space(header);
    if (*header->at == '\'' || *header->at == '"') {
        quote[0] = *header->at++;
        length = strcspn(header->at, quote);
    } else {
        length = strspn(header->at, "FTalseru");
    }
    if (length == 0 || length >= capacity || header->at[length] == '\0') {
        return false;
    }
    memcpy(text, header->at, length);
    text[length] = '\0';
    header->at += length + (quote[0] != '\0');
    return true;
}

static bool reader_npy_number(struct reader_npy_header *header, uint64_t *number)
{
    const char *digits;

    reader_npy_space(header);
    digits = header->at;
    *number = 0;
    while (*header->at >= '0' && *header->at <= '9') {
        const uint64_t digit = (uint64_t)(*header->at++ - '0');

        if (*number > (UINT64_MAX - digit) / 10) {
            return false;
        }
        *number = 10 * *number + digit;
    }
    header->at += *header->at == 'L'; /* as Python 2 wrote it */
    return header->at != digits;
}

static bool reader_npy_shape(struct reader_npy_header *header)
{
    uint64_t number;

    if (!reader_npy_expect(header, '(')) {
        return false;
    }
    while (!reader_npy_expect(header, ')')) {
        if (!reader_npy_number(header, &number)) {
            return false;
        }
        if (header->dimensions < 2) {
            header->shape[header->dimensions] = number;
        }
        header->dimensions += header->dimensions < 3;
        reader_npy_space(header);
        if (*header->at != ')' && !reader_npy_expect(header, ',')) {
            return false;
        }
    }
    return true;
}

static bool reader_npy_entry(struct reader_npy_header *header)
{
    char key[16];

    if (!reader_npy_text(header, key, sizeof key) || !reader_npy_expect(header, ':')) {
        return false;
    }
    if (strcmp(key, "descr") == 0) {
        return reader_npy_text(header, header->descr, sizeof header->descr);
    }
    if (strcmp(key, "fortran_order") == 0) {
        return reader_npy_text(header, header->fortran_order, sizeof header->fortran_order);
    }
    return strcmp(key, "shape") == 0 && reader_npy_shape(header);
}

static bool reader_npy_parse(struct reader_npy_header *header)
{
    if (!reader_npy_expect(header, '{')) {
        return false;
    }
    while (!reader_npy_expect(header, '}')) {
        if (!reader_npy_entry(header)) {
            return false;
        }
        reader_npy_space(header);
        if (*header->at != '}' && !reader_npy_expect(header, ',')) {
            return false;
        }
    }
    return true;
}

/* Takes the type of the elements; false for one that is not read. */
static bool reader_npy_element(struct reader *reader, const char *descr)
{
    static const struct {
        char descr[4];
        omendb_scalar scalar;
        unsigned char bytes;
        char converted;
    } types[] = {
        {"<f2", OMENDB_F16, 2, 0},   {"<f4", OMENDB_F32, 4, 0},   {"<f8", OMENDB_F32, 8, 'f'},
        {"|i1", OMENDB_I8, 1, 0},    {"|u1", OMENDB_U8, 1, 0},    {"|b1", OMENDB_U8, 1, 0},
        {"<i2", OMENDB_F32, 2, 'i'}, {"<i4", OMENDB_F32, 4, 'i'}, {"<i8", OMENDB_F32, 8, 'i'},
        {"<u2", OMENDB_F32, 2, 'u'}, {"<u4", OMENDB_F32, 4, 'u'}, {"<u8", OMENDB_F32, 8, 'u'},
    };
    size_t i;

    for (i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(descr, types[i].descr) == 0) {
            reader->scalar = types[i].scalar;
            reader->converted = types[i].converted;
            reader->element_bytes = types[i].bytes;
            return true;
        }
    }
    return false;
}

/* What numpy can do about a header that is not taken. */
static int reader_npy_take(struct reader *reader, const struct reader_npy_header *header)
{
    if (!reader_npy_element(reader, header->descr)) {
        return reader_fail(reader, OMENDB_UNSUPPORTED,
                           "elements of type '%s' are not read; save it with "
                           "np.save(path, a.astype('<f4'))",
                           header->descr);
    }
    if (header->dimensions != 2) {
        return reader_fail(reader, OMENDB_UNSUPPORTED,
                           "the array is not two-dimensional; one row a vector is read: "
                           "np.save(path, a.reshape(rows, dim))");
    }
    if (strcmp(header->fortran_order, "False") != 0) {
        return reader_fail(reader, OMENDB_UNSUPPORTED,
                           "the array is in Fortran order; save it with "
                           "np.save(path, np.ascontiguousarray(a))");
    }
    reader->rows = header->shape[0];
    reader->row_bytes =
        reader->element_bytes * (header->shape[1] <= READER_DIM_MAX ? header->shape[1] : 0);
    return reader_check_dim(reader, header->shape[1]);
}

/* Ids: one to a row, in an array of one dimension or one column. */
static int reader_npy_take_ids(struct reader *reader, const struct reader_npy_header *header)
{
    const bool whole = reader_npy_element(reader, header->descr) &&
                       (reader->converted == 'i' || reader->converted == 'u');

    if (!whole) {
        return reader_fail(reader, OMENDB_UNSUPPORTED,
                           "ids of type '%s' are not read; save them with "
                           "np.save(path, ids.astype('<u8'))",
                           header->descr);
    }
    if (header->dimensions != 1 && (header->dimensions != 2 || header->shape[1] != 1)) {
        return reader_fail(reader, OMENDB_UNSUPPORTED,
                           "the array of ids is not one-dimensional; save it with "
                           "np.save(path, ids.reshape(-1))");
    }
    reader->has_ids = true;
    reader->rows = header->shape[0];
    reader->row_bytes = reader->element_bytes;
    return OMENDB_OK;
}

static int reader_npy_length(struct reader *reader, uint32_t *length)
{
    unsigned char magic[8], bytes[4] = {0};
    int code = reader_bytes(reader, magic, sizeof magic, NULL);

    if (code != OMENDB_OK) {
        return code;
    }
    if (memcmp(magic, "\x93NUMPY", 6) != 0 || magic[6] < 1 || magic[6] > 3) {
        return reader_fail(reader, OMENDB_INVALID,
                           "is not a .npy file (version 1 to 3); an .npz is a zip of them");
    }
    code = reader_bytes(reader, bytes, magic[6] == 1 ? 2 : 4, NULL);
    *length = (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 |
              (uint32_t)bytes[3] << 24;
    if (code == OMENDB_OK && (*length == 0 || *length > READER_NPY_HEADER_MAX)) {
        code = reader_fail(reader, OMENDB_INVALID, "a header of %lu bytes; the file is damaged",
                           (unsigned long)*length);
    }
    return code;
}

static int reader_npy_header_text(struct reader *reader, char *text, size_t length)
{
    struct reader_npy_header header = {0};
    int code = reader_bytes(reader, text, length, NULL);

    if (code != OMENDB_OK) {
        return code;
    }
    text[length] = '\0';
    header.at = text;
    if (!reader_npy_parse(&header)) {
        return reader_fail(reader, OMENDB_INVALID,
                           "a header that is not understood at byte %llu; only plain arrays of "
                           "numbers are read",
                           (unsigned long long)(header.at - text));
    }
    return reader->format == &reader_npy_ids ? reader_npy_take_ids(reader, &header)
                                             : reader_npy_take(reader, &header);
}

static int reader_npy_begin(struct reader *reader)
{
    uint32_t length = 0;
    char *text;
    int code = reader_npy_length(reader, &length);

    if (code != OMENDB_OK) {
        return code;
    }
    text = failure_allocate(reader->failure, (size_t)length + 1, 1);
    if (text == NULL) {
        return OMENDB_NOMEM;
    }
    code = reader_npy_header_text(reader, text, length);
    failure_release(text);
    reader->data_offset = reader->read_bytes;
    if (code == OMENDB_OK) {
        code = reader_check_size(reader);
    }
    return code == OMENDB_OK && reader->converted != 0 ? reader_scratch(reader, reader->row_bytes)
                                                       : code;
}

static int reader_npy_double(struct reader *reader, uint64_t column, float *to)
{
    double from;

    memcpy(&from, (const char *)reader->scratch + column * sizeof from, sizeof from);
    if (!(fabs(from) <= (double)FLT_MAX)) {
        return reader_fail(reader, OMENDB_INVALID,
                           "row %llu, element %llu: %g does not fit a 32-bit float",
                           (unsigned long long)reader->next_row, (unsigned long long)column, from);
    }
    *to = (float)from;
    return OMENDB_OK;
}

/* The whole number in a column of the scratch row: its magnitude, and whether it is below 0. */
static uint64_t reader_npy_whole(const struct reader *reader, uint64_t column, bool *negative)
{
    const uint64_t bits = 8 * reader->element_bytes;
    uint64_t value = 0;

    memcpy(&value, (const char *)reader->scratch + column * reader->element_bytes,
           (size_t)reader->element_bytes);
    *negative = reader->converted == 'i' && (value >> (bits - 1) & 1) != 0;
    return *negative ? (0 - value) & UINT64_MAX >> (64 - bits) : value;
}

/* A whole number is taken only if a float holds it: one that has to be rounded is likely an id, a
 * count or a time, and no element. */
static int reader_npy_integer(struct reader *reader, uint64_t column, float *to)
{
    bool negative;
    const uint64_t magnitude = reader_npy_whole(reader, column, &negative);
    uint64_t digits = magnitude;

    while (digits > READER_FLOAT_WHOLE_MAX && (digits & 1) == 0) {
        digits >>= 1;
    }
    if (digits > READER_FLOAT_WHOLE_MAX) {
        return reader_fail(reader, OMENDB_UNSUPPORTED,
                           "row %llu, element %llu: %s%llu is no 32-bit float; if it may be "
                           "rounded, save the array with np.save(path, a.astype('<f4'))",
                           (unsigned long long)reader->next_row, (unsigned long long)column,
                           negative ? "-" : "", (unsigned long long)magnitude);
    }
    *to = negative ? -(float)magnitude : (float)magnitude;
    return OMENDB_OK;
}

static int reader_npy_row(struct reader *reader, uint64_t *id, void *vector)
{
    float *to = vector;
    uint32_t i;
    int code;

    if (reader->converted == 0 || reader->next_row == reader->rows) {
        return reader_plain_row(reader, id, vector);
    }
    code = reader_bytes(reader, reader->scratch, (size_t)reader->row_bytes, NULL);
    for (i = 0; i < reader->dim && code == OMENDB_OK; i++) {
        code = reader->converted == 'f' ? reader_npy_double(reader, i, to + i)
                                        : reader_npy_integer(reader, i, to + i);
    }
    return code;
}

static int reader_npy_id_row(struct reader *reader, uint64_t *id, void *vector)
{
    bool negative;
    int code;

    (void)vector;
    if (reader->next_row == reader->rows) {
        return OMENDB_DONE;
    }
    code = reader_bytes(reader, reader->scratch, (size_t)reader->row_bytes, NULL);
    if (code != OMENDB_OK) {
        return code;
    }
    *id = reader_npy_whole(reader, 0, &negative);
    if (negative || *id == OMENDB_ID_AUTO) {
        return reader_fail(reader, OMENDB_INVALID,
                           "row %llu: %s%llu is no id; ids are whole numbers from 0 to "
                           "18446744073709551614",
                           (unsigned long long)reader->next_row, negative ? "-" : "",
                           (unsigned long long)*id);
    }
    return OMENDB_OK;
}

const struct reader_format reader_npy = {"npy", false, reader_npy_begin, reader_npy_row};
const struct reader_format reader_npy_ids = {"npy", false, reader_npy_begin, reader_npy_id_row};
const struct reader_format reader_fvecs = {"fvecs", false, reader_fvecs_begin, reader_vecs_row};
const struct reader_format reader_bvecs = {"bvecs", false, reader_bvecs_begin, reader_vecs_row};
const struct reader_format reader_fbin = {"fbin", false, reader_fbin_begin, reader_plain_row};
const struct reader_format reader_u8bin = {"u8bin", false, reader_u8bin_begin, reader_plain_row};
const struct reader_format reader_i8bin = {"i8bin", false, reader_i8bin_begin, reader_plain_row};

#undef READER_NPY_HEADER_MAX
#undef READER_FLOAT_WHOLE_MAX
