/* part.c: what a part of a segment file is made of, written section by section: ids with the index
 * that finds them, rows of vectors, the graph, the codes. Checkpoints write parts of memtables,
 * merges those of new segments. */
#include "database.h"
#include "idmodel.h"

#include <stdio.h>
#include <string.h>

#define PART_CODED   8192               /* rows coded between releases of their vectors */
#define PART_CODES   ((size_t)64 << 10) /* bytes of codes written at a time */
#define PART_COLUMNS ((size_t)64 << 20) /* bytes of columns that are made at a time */

/* ------------------------------------------------------------------ ids */

struct part_id {
    uint64_t id;
    uint32_t row;
};

static int part_compare_ids(const void *left, const void *right)
{
    const struct part_id *a = left, *b = right;
    if (a->id != b->id)
        return a->id < b->id ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

static int part_write_sorted(struct segment_writer *writer, struct memory *memory,
                             const uint64_t *ids, uint32_t rows, struct idmodel_builder *model)
{
    struct part_id *sorted = memory_array(memory, rows, sizeof *sorted);
    if (sorted == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < rows; i++)
        sorted[i] = (struct part_id){ids[i], i};
    sort_array(sorted, rows, sizeof *sorted, part_compare_ids);
    int code = segment_writer_begin_section(writer, SECTION_SORTED_IDS);
    for (uint32_t i = 0; i < rows && code == OMENDB_OK; i++) {
        idmodel_add(model, sorted[i].id);
        code = segment_writer_append(writer, &sorted[i].id, sizeof sorted[i].id);
    }
    if (code == OMENDB_OK)
        code = segment_writer_begin_section(writer, SECTION_SORTED_ROWS);
    for (uint32_t i = 0; i < rows && code == OMENDB_OK; i++)
        code = segment_writer_append(writer, &sorted[i].row, sizeof sorted[i].row);
    memory_free(memory, sorted, rows * sizeof *sorted);
    return code;
}

static int part_write_filter(struct segment_writer *writer, struct memory *memory,
                             const uint64_t *ids, uint32_t rows)
{
    size_t bytes = idmap_filter_bytes(rows);
    uint8_t *filter = memory_zalloc(memory, bytes);
    if (filter == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < rows; i++)
        idmap_filter_add(filter, bytes, ids[i]);
    int code = segment_writer_begin_section(writer, SECTION_ID_FILTER);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, filter, bytes);
    memory_free(memory, filter, bytes);
    return code;
}

/* Without memory the ids are searched by halves, until they are merged. */
static int part_write_model(struct segment_writer *writer, struct idmodel_builder *model)
{
    size_t size;
    uint8_t *bytes = idmodel_finish(model, &size);
    if (bytes == NULL)
        return OMENDB_OK;
    int code = segment_writer_begin_section(writer, SECTION_ID_MODEL);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, bytes, size);
    memory_free(model->memory, bytes, size);
    return code;
}

OMENDB_INTERNAL int part_write_ids(struct segment_writer *writer, struct memory *memory,
                                   const uint64_t *ids, uint32_t rows, struct part_info *info)
{
    struct idmodel_builder model;
    int ascend = 1;
    info->smallest_id = UINT64_MAX;
    info->largest_id = 0;
    for (uint32_t i = 0; i < rows; i++) {
        ascend &= i == 0 || ids[i - 1] <= ids[i];
        info->smallest_id = ids[i] < info->smallest_id ? ids[i] : info->smallest_id;
        info->largest_id = ids[i] > info->largest_id ? ids[i] : info->largest_id;
    }
    info->flags |= ascend ? SEGMENT_IDS_ASCEND : 0;
    idmodel_begin(&model, memory);
    int code = segment_writer_begin_section(writer, SECTION_IDS);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, ids, rows * sizeof *ids);
    if (code == OMENDB_OK && !ascend)
        code = part_write_sorted(writer, memory, ids, rows, &model);
    for (uint32_t i = 0; i < rows && ascend; i++)
        idmodel_add(&model, ids[i]);
    if (code == OMENDB_OK)
        code = part_write_filter(writer, memory, ids, rows);
    if (code == OMENDB_OK)
        code = part_write_model(writer, &model);
    idmodel_end(&model);
    return code;
}

/* ------------------------------------------------------------------ documents, keys */

struct part_key {
    uint64_t hash;
    uint32_t row;
};

static int part_compare_keys(const void *left, const void *right)
{
    const struct part_key *a = left, *b = right;
    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* The ends of all documents; *keys: how many have one. Nothing is written where there are none:
 * *bytes is 0. */
static int part_write_ends(struct segment_writer *writer, const struct part_documents *documents,
                           uint32_t rows, uint64_t *bytes, uint32_t *keys)
{
    const uint8_t *document;
    uint32_t first = 0, key_size;
    int code = OMENDB_OK;
    *bytes = *keys = 0;
    while (first < rows && *bytes == 0 && code == OMENDB_OK) {
        code = documents->read(documents->context, first++, &document);
        *bytes = code == OMENDB_OK ? document_size(document) : 0;
    }
    if (code != OMENDB_OK || *bytes == 0)
        return code;
    *bytes = 0;
    code = segment_writer_begin_section(writer, SECTION_DOCUMENT_ENDS);
    for (uint32_t row = 0; row < rows && code == OMENDB_OK; row++) {
        code = documents->read(documents->context, row, &document);
        if (code != OMENDB_OK)
            break;
        *bytes += document_size(document);
        *keys += document_key(document, &key_size) != NULL;
        code = segment_writer_append(writer, bytes, sizeof *bytes);
    }
    return code;
}

static int part_write_keys(struct segment_writer *writer, struct memory *memory,
                           const struct hash_seed *seed, const struct part_key *keys,
                           uint32_t count)
{
    size_t bytes = idmap_filter_bytes(count);
    uint8_t *filter = memory_zalloc(memory, bytes);
    if (filter == NULL)
        return OMENDB_NOMEM;
    int code = segment_writer_begin_section(writer, SECTION_KEY_HASHES);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, seed, HASH_SEED_BYTES);
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++) {
        idmap_filter_add(filter, bytes, keys[i].hash);
        code = segment_writer_append(writer, &keys[i].hash, sizeof keys[i].hash);
    }
    if (code == OMENDB_OK)
        code = segment_writer_begin_section(writer, SECTION_KEY_ROWS);
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++)
        code = segment_writer_append(writer, &keys[i].row, sizeof keys[i].row);
    if (code == OMENDB_OK)
        code = segment_writer_begin_section(writer, SECTION_KEY_FILTER);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, filter, bytes);
    memory_free(memory, filter, bytes);
    return code;
}

static size_t part_column_bytes(const struct memory *memory)
{
    const uint64_t share = memory->limit / 16;
    return share != 0 && share < PART_COLUMNS ? (size_t)share : PART_COLUMNS;
}

OMENDB_INTERNAL int part_write_documents(struct segment_writer *writer, struct memory *memory,
                                         const struct hash_seed *seed,
                                         const struct part_documents *documents, uint32_t rows)
{
    struct part_key *keys = NULL;
    uint64_t bytes;
    uint32_t key_count, found = 0, key_size;
    int code = part_write_ends(writer, documents, rows, &bytes, &key_count);
    if (code != OMENDB_OK || bytes == 0)
        return code;
    if (key_count != 0) {
        keys = memory_array(memory, key_count, sizeof *keys);
        if (keys == NULL)
            return OMENDB_NOMEM;
    }
    code = segment_writer_begin_section(writer, SECTION_DOCUMENTS);
    for (uint32_t row = 0; row < rows && code == OMENDB_OK; row++) {
        const uint8_t *document;
        code = documents->read(documents->context, row, &document);
        if (code != OMENDB_OK || document == NULL)
            continue;
        const uint8_t *key = document_key(document, &key_size);
        if (key != NULL && found < key_count)
            keys[found++] = (struct part_key){hash_bytes(seed, key, key_size), row};
        code = segment_writer_append(writer, document, document_size(document));
    }
    if (code == OMENDB_OK && found != 0) {
        sort_array(keys, found, sizeof *keys, part_compare_keys);
        code = part_write_keys(writer, memory, seed, keys, found);
    }
    memory_free(memory, keys, key_count * sizeof *keys);
    const struct columns_source source = {documents->read, documents->context};
    return code == OMENDB_OK
               ? columns_write(writer, memory, seed, &source, rows, part_column_bytes(memory))
               : code;
}

/* ------------------------------------------------------------------ what a part says, its graph */

/* Rows of a growing store lie in runs of 64. */
OMENDB_INTERNAL int part_write_rows(struct segment_writer *writer, enum section_type type,
                                    const struct rows_view *rows, uint32_t count)
{
    int code = segment_writer_begin_section(writer, type);
    for (uint32_t row = 0; row < count && code == OMENDB_OK; row += rows->mask + 1) {
        uint32_t run = count - row < rows->mask + 1 ? count - row : rows->mask + 1;
        code = segment_writer_append(writer, rows_at(rows, row), run * rows->stride);
    }
    return code;
}

OMENDB_INTERNAL void part_describe(const struct collection *collection, struct part_info *info)
{
    memset(info, 0, sizeof *info);
    info->collection = collection->id;
    info->M = collection->schema.M;
    info->vector_stride = (uint32_t)collection->vector_bytes;
    info->dim = collection->schema.dim;
    info->scalar = collection->schema.scalar;
    info->metric = collection->schema.metric;
}

OMENDB_INTERNAL void part_describe_graph(const struct graph_view *view, uint32_t indexed_rows,
                                         struct part_info *info)
{
    /* An insertion that failed can leave the entry point beyond the finished rows: then the graph
     * is of no use. */
    info->indexed_rows = view->entry_row < indexed_rows ? indexed_rows : 0;
    info->upper_count = info->indexed_rows == 0 ? 0 : view->upper_count;
    info->entry_row = view->entry_row;
    info->entry_level = view->entry_level;
}

OMENDB_INTERNAL int part_write_links(struct segment_writer *writer, const struct graph_view *view,
                                     const struct part_info *info)
{
    int code = OMENDB_OK;
    if (info->indexed_rows == 0)
        return OMENDB_OK;
    code = part_write_rows(writer, SECTION_LINKS, &view->links, info->indexed_rows);
    if (code == OMENDB_OK)
        code = part_write_rows(writer, SECTION_LEVELS, &view->levels, info->indexed_rows);
    if (code == OMENDB_OK)
        code = part_write_rows(writer, SECTION_UPPER_INDEX, &view->upper_index, info->indexed_rows);
    if (code == OMENDB_OK)
        code = part_write_rows(writer, SECTION_UPPER_LINKS, &view->upper_links, info->upper_count);
    return code;
}

/* ------------------------------------------------------------------ its codes */

OMENDB_INTERNAL struct code_format part_code_format(const struct collection *collection,
                                                    const struct part_info *info)
{
    return (struct code_format){collection->format, info->code_low, info->code_step};
}

static uint32_t part_sample_row(uint32_t rows, uint32_t take, uint32_t i)
{
    return (uint32_t)((uint64_t)i * rows / take);
}

OMENDB_INTERNAL int part_choose_codes(const struct collection *collection,
                                      const struct rows_view *vectors, uint32_t first,
                                      uint32_t rows, struct code_format *format)
{
    struct code_sample sample;
    uint32_t take = rows < CODES_SAMPLE_VECTORS ? rows : CODES_SAMPLE_VECTORS, poor = 0;
    int code = codes_sample_begin(&sample, &collection->db->memory);
    if (code != OMENDB_OK)
        return code;
    for (uint32_t i = 0; i < take; i++)
        codes_sample_add(&sample, &collection->format,
                         rows_at(vectors, first + part_sample_row(rows, take, i)));
    codes_choose(&sample, &collection->format, format);
    /* The sorted sample is of no use any more, and longer than the longest code. */
    uint8_t *scrap = (uint8_t *)sample.sorted;
    for (uint32_t i = 0; i < take && format->step != 0.0f; i++)
        poor += codes_encode(format, rows_at(vectors, first + part_sample_row(rows, take, i)),
                             scrap) == CODE_POOR;
    if (!codes_serve(format, take, poor))
        format->step = 0.0f;
    codes_sample_end(&sample);
    return OMENDB_OK;
}

/* OMENDB_OK with step 0: the vectors have no codes, which `info` then says. */
static int part_begin_codes(const struct collection *collection, const struct rows_view *vectors,
                            struct part_info *info, uint32_t rows, struct code_format *format)
{
    *format = (struct code_format){collection->format, 0.0f, 0.0f};
    if (rows == 0 || !codes_apply_to(&collection->format))
        return OMENDB_OK;
    int code = part_choose_codes(collection, vectors, 0, rows, format);
    if (code == OMENDB_OK && format->step == 0.0f)
        info->flags |= SEGMENT_NO_RANGE;
    return code;
}

static void part_end_codes(const struct code_format *format, int exact, struct part_info *info)
{
    info->code_low = format->low;
    info->code_step = format->step;
    if (exact && codes_are_exact(format))
        info->flags |= SEGMENT_CODES_EXACT;
}

OMENDB_INTERNAL int part_make_codes(const struct collection *collection,
                                    const struct graph_view *full, struct part_info *info,
                                    uint8_t **codes)
{
    struct code_format format;
    size_t stride = codes_stride(collection->schema.dim);
    int exact = 1;
    *codes = NULL;
    int code = part_begin_codes(collection, &full->vectors, info, full->count, &format);
    if (code != OMENDB_OK || format.step == 0.0f)
        return code;
    *codes = memory_alloc_aligned(&collection->db->memory, memory_multiply(full->count, stride));
    if (*codes == NULL)
        return OMENDB_NOMEM;
    graph_release_vectors(full, 0, full->count); /* what was read around the sample */
    for (uint32_t first = 0, last; first < full->count; first = last) {
        last = full->count - first < PART_CODED ? full->count : first + PART_CODED;
        for (uint32_t row = first; row < last; row++)
            exact &= codes_encode(&format, rows_at(&full->vectors, row), *codes + row * stride) ==
                     CODE_EXACT;
        graph_release_vectors(full, first, last);
    }
    part_end_codes(&format, exact, info);
    return OMENDB_OK;
}

OMENDB_INTERNAL void part_report_codes(const struct collection *collection)
{
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof text,
             "a segment of collection \"%.64s\" was written without codes, which makes searching "
             "it slow until a merge has memory for them: %.300s",
             collection->name, error_text());
    database_log(collection->db, OMENDB_NOMEM, text);
}

/* Codes of the rows, `run` of them at a time. */
static int part_append_codes(struct segment_writer *writer, const struct rows_view *vectors,
                             const struct code_format *format, uint8_t *codes, uint32_t run,
                             struct part_info *info)
{
    size_t stride = codes_stride(info->dim);
    int exact = 1, code = segment_writer_begin_section(writer, SECTION_CODES);
    for (uint32_t first = 0, count; first < info->rows && code == OMENDB_OK; first += count) {
        count = info->rows - first < run ? info->rows - first : run;
        for (uint32_t i = 0; i < count; i++)
            exact &=
                codes_encode(format, rows_at(vectors, first + i), codes + i * stride) == CODE_EXACT;
        code = segment_writer_append(writer, codes, count * stride);
    }
    part_end_codes(format, exact, info);
    return code;
}

/* Without memory the segment is walked over its vectors, until it is merged. */
OMENDB_INTERNAL int part_write_codes(struct segment_writer *writer,
                                     const struct collection *collection,
                                     const struct rows_view *vectors, struct part_info *info)
{
    struct memory *memory = &collection->db->memory;
    struct code_format format;
    size_t stride = codes_stride(info->dim);
    uint32_t run = stride < PART_CODES ? (uint32_t)(PART_CODES / stride) : 1;
    uint8_t *codes = NULL;
    if (info->indexed_rows == 0) /* nothing to walk, and soon merged */
        return OMENDB_OK;
    int code = part_begin_codes(collection, vectors, info, info->rows, &format);
    if (code == OMENDB_OK && format.step == 0.0f)
        return OMENDB_OK;
    if (code == OMENDB_OK) {
        codes = memory_alloc(memory, run * stride);
        code = codes == NULL ? OMENDB_NOMEM : OMENDB_OK;
    }
    if (code == OMENDB_OK) {
        code = part_append_codes(writer, vectors, &format, codes, run, info);
    } else if (code == OMENDB_NOMEM) {
        part_report_codes(collection);
        code = OMENDB_OK;
    }
    memory_free(memory, codes, run * stride);
    return code;
}

#undef PART_CODED
#undef PART_CODES
#undef PART_COLUMNS
