/* idmodel.c: see idmodel.h.
 *
 * The slopes of a piece are those of lines through its first id that pass within IDMODEL_ERROR
 * places of each of the others; they become fewer with each id, and when none is left the next
 * piece begins. Its slope is the middle one. A prediction is cut to a whole place; an id that is
 * not there, between two that are, goes at most one place beyond what is predicted for them. So the
 * first id that is not below any id lies within IDMODEL_ERROR + 2 places, unless many are equal. */
#include "idmodel.h"

#include "error.h"
#include "format.h"

#include <math.h>
#include <string.h>

#define IDMODEL_ERROR      (IDMODEL_REACH - 2)
#define IDMODEL_MOST_LINES (UINT32_C(1) << 31)

static size_t idmodel_padded(size_t keys)
{
    return (keys + IDMODEL_NODE - 1) / IDMODEL_NODE * IDMODEL_NODE;
}

/* Where all lies when there are so many pieces; returns the bytes of the section. */
static uint64_t idmodel_lay_out(struct idmodel *model, uint32_t pieces)
{
    uint64_t offset = FORMAT_MODEL_KEYS;
    uint32_t level = 0, keys = pieces;
    model->pieces = pieces;
    do {
        model->keys[level] = keys;
        model->offsets[level++] = (size_t)offset;
        offset += (uint64_t)idmodel_padded(keys) * sizeof(uint64_t);
        keys = (uint32_t)(idmodel_padded(keys) / IDMODEL_NODE);
    } while (model->keys[level - 1] > IDMODEL_NODE);
    model->levels = level;
    model->lines = (size_t)offset;
    return offset + ((uint64_t)pieces + 1) * FORMAT_LINE_BYTES;
}

OMENDB_INTERNAL int idmodel_open(struct idmodel *model, const uint8_t *bytes, uint64_t length,
                                 uint32_t rows)
{
    uint32_t low = 1, high = rows < IDMODEL_MOST_LINES ? rows : IDMODEL_MOST_LINES;
    model->bytes = NULL;
    model->rows = rows;
    if (rows < IDMODEL_MIN_ROWS)
        return 0;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (idmodel_lay_out(model, middle) < length)
            low = middle + 1;
        else
            high = middle;
    }
    if (idmodel_lay_out(model, low) != length)
        return 0;
    model->bytes = bytes;
    return 1;
}

OMENDB_INTERNAL int idmodel_is_usable(const struct idmodel *model)
{
    return format_get32(model->bytes + FORMAT_MODEL_PIECES) == model->pieces &&
           format_get32(model->bytes + FORMAT_MODEL_REACH) == IDMODEL_REACH;
}

static const uint64_t *idmodel_keys(const struct idmodel *model, uint32_t level)
{
    return (const void *)(model->bytes + model->offsets[level]);
}

/* The piece of the greatest first id that is not above `id`; the first one where there is none. The
 * places behind the last key of a level have keys of UINT64_MAX. */
static uint32_t idmodel_find_piece(const struct idmodel *model, uint64_t id)
{
    uint32_t node = 0;
    for (uint32_t level = model->levels; level-- > 0;) {
        const uint64_t *keys = idmodel_keys(model, level) + (size_t)node * IDMODEL_NODE;
        /* Of the keys behind the first one, how many are at most `id`. */
        uint32_t fours = (uint32_t)(keys[4] <= id) + (keys[8] <= id) + (keys[12] <= id);
        keys += fours * 4;
        node =
            node * IDMODEL_NODE + fours * 4 + (keys[1] <= id) + (keys[2] <= id) + (keys[3] <= id);
        node = node < model->keys[level] ? node : model->keys[level] - 1;
    }
    return node;
}

/* Where a piece puts an id, at most where the next one begins. */
static int64_t idmodel_predict(const struct idmodel *model, uint32_t piece, uint64_t id)
{
    const uint8_t *line = model->bytes + model->lines + (size_t)piece * FORMAT_LINE_BYTES;
    uint64_t key = idmodel_keys(model, 0)[piece];
    int64_t beyond = id < key ? 0 : id - key > INT64_MAX ? INT64_MAX : (int64_t)(id - key);
    int64_t place = format_get32(line + FORMAT_LINE_PLACE),
            next = format_get32(line + FORMAT_LINE_BYTES + FORMAT_LINE_PLACE);
    double most = (double)(next - place), steps = format_get_double(line) * (double)beyond;
    steps = steps < most ? steps : most; /* also where it is no number */
    steps = steps > 0.0 ? steps : 0.0;
    return place + (int64_t)steps;
}

OMENDB_INTERNAL uint32_t idmodel_window(const struct idmodel *model, uint64_t id)
{
    int64_t first = idmodel_predict(model, idmodel_find_piece(model, id), id) - IDMODEL_REACH,
            last = (int64_t)model->rows - IDMODEL_WINDOW;
    first = first < last ? first : last;
    return first > 0 ? (uint32_t)first : 0;
}

/* ------------------------------------------------------------------ checking */

static const char *idmodel_check_keys(const struct idmodel *model)
{
    for (uint32_t level = 0; level < model->levels; level++) {
        const uint64_t *keys = idmodel_keys(model, level);
        for (size_t i = model->keys[level]; i < idmodel_padded(model->keys[level]); i++) {
            if (keys[i] != UINT64_MAX)
                return "has a key too many";
        }
        for (size_t i = 0; i < model->keys[level]; i++) {
            if (level > 0 && keys[i] != idmodel_keys(model, level - 1)[i * IDMODEL_NODE])
                return "has a key that is not the first of its node";
            if (i > 0 && keys[i] <= keys[i - 1])
                return "has keys that do not ascend";
        }
    }
    return NULL;
}

OMENDB_INTERNAL const char *idmodel_check(const struct idmodel *model, const uint64_t *ids)
{
    if (!idmodel_is_usable(model))
        return "is none";
    const char *wrong = idmodel_check_keys(model);
    for (uint32_t row = 0; row < model->rows && wrong == NULL; row++) {
        uint32_t first = idmodel_window(model, ids[row]);
        if (row > 0 && ids[row] == ids[row - 1])
            continue;
        if (row < first || row - first > IDMODEL_WINDOW)
            wrong = "does not lead to an id";
    }
    return wrong;
}

/* ------------------------------------------------------------------ building */

OMENDB_INTERNAL void idmodel_begin(struct idmodel_builder *builder, struct memory *memory)
{
    memset(builder, 0, sizeof *builder);
    builder->memory = memory;
}

static void idmodel_close_piece(struct idmodel_builder *builder)
{
    if (builder->count == 0)
        return;
    double slope = builder->low + (builder->high - builder->low) / 2;
    builder->pieces[builder->count - 1].slope = isinf(builder->high) ? 0.0 : slope;
}

static void idmodel_open_piece(struct idmodel_builder *builder, uint64_t id)
{
    idmodel_close_piece(builder);
    if (builder->count == builder->capacity) {
        size_t capacity = memory_add(memory_multiply(builder->capacity, 2), 64);
        struct idmodel_piece *moved = memory_resize(builder->memory, builder->pieces,
                                                    builder->capacity * sizeof *builder->pieces,
                                                    memory_multiply(capacity, sizeof *moved));
        builder->starved = moved == NULL;
        if (moved == NULL)
            return;
        builder->pieces = moved;
        builder->capacity = capacity;
    }
    builder->pieces[builder->count++] = (struct idmodel_piece){id, 0.0, builder->rows};
    builder->low = 0.0;
    builder->high = HUGE_VAL;
}

/* Leaves the slopes by which the piece tells the place of `id`, too. 0: there are none. */
static int idmodel_narrow(struct idmodel_builder *builder, uint64_t id)
{
    const struct idmodel_piece *piece = &builder->pieces[builder->count - 1];
    if (id - piece->key > INT64_MAX)
        return 0;
    double beyond = (double)(int64_t)(id - piece->key), steps = builder->rows - piece->place;
    double low = (steps - IDMODEL_ERROR) / beyond, high = (steps + IDMODEL_ERROR) / beyond;
    low = low > builder->low ? low : builder->low;
    high = high < builder->high ? high : builder->high;
    if (low > high)
        return 0;
    builder->low = low;
    builder->high = high;
    return 1;
}

OMENDB_INTERNAL void idmodel_add(struct idmodel_builder *builder, uint64_t id)
{
    int is_new = builder->rows == 0 || id != builder->last;
    if (is_new && !builder->starved && (builder->count == 0 || !idmodel_narrow(builder, id)))
        idmodel_open_piece(builder, id);
    builder->last = id;
    builder->rows++;
}

static void idmodel_encode(const struct idmodel_builder *builder, const struct idmodel *model,
                           uint8_t *bytes)
{
    format_put32(bytes + FORMAT_MODEL_PIECES, model->pieces);
    format_put32(bytes + FORMAT_MODEL_REACH, IDMODEL_REACH);
    size_t apart = 1;
    for (uint32_t level = 0; level < model->levels; level++, apart *= IDMODEL_NODE) {
        for (size_t i = 0; i < idmodel_padded(model->keys[level]); i++)
            format_put64(bytes + model->offsets[level] + i * sizeof(uint64_t),
                         i < model->keys[level] ? builder->pieces[i * apart].key : UINT64_MAX);
    }
    for (size_t i = 0; i <= model->pieces; i++) {
        uint8_t *line = bytes + model->lines + i * FORMAT_LINE_BYTES;
        format_put_double(line + FORMAT_LINE_SLOPE,
                          i < model->pieces ? builder->pieces[i].slope : 0.0);
        format_put32(line + FORMAT_LINE_PLACE,
                     i < model->pieces ? builder->pieces[i].place : builder->rows);
    }
}

OMENDB_INTERNAL uint8_t *idmodel_finish(struct idmodel_builder *builder, size_t *size)
{
    struct idmodel model;
    if (builder->starved || builder->rows < IDMODEL_MIN_ROWS)
        return NULL;
    idmodel_close_piece(builder);
    *size = (size_t)idmodel_lay_out(&model, (uint32_t)builder->count);
    uint8_t *bytes = memory_zalloc(builder->memory, *size);
    if (bytes != NULL)
        idmodel_encode(builder, &model, bytes);
    return bytes;
}

OMENDB_INTERNAL void idmodel_end(struct idmodel_builder *builder)
{
    memory_free(builder->memory, builder->pieces, builder->capacity * sizeof *builder->pieces);
}

#undef IDMODEL_ERROR
#undef IDMODEL_MOST_LINES
