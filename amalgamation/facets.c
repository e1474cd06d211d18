/* facets.c: see facets.h.
 *
 * Of a segment whose columns know the field, the ranks of each row that matches are counted in an
 * array, one number a value, and the values come in once, at its end. Elsewhere (in memory, in the
 * transaction, where the columns do not know) the document of each record tells its values.
 *
 * Values are gathered in a list that is put in order, and of which equal ones are added up,
 * whenever it is full; it grows only where that leaves it more than half full. So it never holds
 * more than four times the distinct values. A text that an array has twice counts once: the entries
 * of one record bear its number until they are added up.
 *
 * Rejected: a table by hashes (writers of metadata could make all collide; sorting is bounded). */
#include "facets.h"

#include <string.h>

#define FACETS_LEAST 256 /* entries */

struct facets_entry {
    struct document_value value;
    uint64_t count;
    uint64_t record; /* of which it is one of several texts; 0: no matter */
};
_Static_assert(sizeof(struct facets_entry) <= 64, "sort_array takes such entries");

/* As for cursors: so many may lie in the readers' share of the reserve. */
#define FACETS_IN_RESERVE 2

/* How the rows of a source tell their values. */
enum facets_way { FACETS_BY_DOCUMENT, FACETS_BY_RANK, FACETS_NULL };

struct facets_counter {
    struct memory *memory;
    uint64_t commit;
    const uint8_t *name;
    uint32_t name_size, name_hash;
    struct facets_entry *entries;
    size_t count, room;
    uint64_t records, nulls;
    /* The segment that rows come from; NULL: none. */
    const struct segment *segment;
    enum facets_way way;
    struct column column;
    uint32_t *ranks; /* rows of each; the last place: of empty arrays */
    size_t rank_room;
};

struct omendb_facets {
    uint32_t magic;
    omendb *db;
    uint64_t records, nulls, values;
    struct facets_entry *entries; /* texts point into `texts` */
    size_t count, next;
    uint8_t *texts;
    size_t text_bytes;
};

/* ------------------------------------------------------------------ the list */

static int facets_compare_values(const void *left, const void *right)
{
    const struct facets_entry *a = left, *b = right;
    const int order = document_compare(&a->value, &b->value);
    return order != 0 ? order : (a->record > b->record) - (a->record < b->record);
}

/* Most first; of equally many in the order of values. */
static int facets_compare_counts(const void *left, const void *right)
{
    const struct facets_entry *a = left, *b = right;
    return a->count != b->count ? (a->count < b->count) - (a->count > b->count)
                                : document_compare(&a->value, &b->value);
}

/* Whether the values ascend already, as those of one segment do. */
static int facets_ascend(const struct facets_counter *counter)
{
    const struct facets_entry *entries = counter->entries;
    size_t i = 1;
    while (i < counter->count && facets_compare_values(&entries[i - 1], &entries[i]) <= 0)
        i++;
    return i >= counter->count;
}

/* Of each value one entry, ascending. All of a record are in the list. */
static void facets_add_up(struct facets_counter *counter)
{
    struct facets_entry *entries = counter->entries;
    size_t kept = 0;
    if (!facets_ascend(counter))
        sort_array(entries, counter->count, sizeof *entries, facets_compare_values);
    for (size_t i = 0; i < counter->count; i++) {
        if (kept == 0 || document_compare(&entries[kept - 1].value, &entries[i].value) != 0) {
            entries[kept++] = entries[i];
        } else if (entries[i].record == 0 || entries[kept - 1].record != entries[i].record) {
            entries[kept - 1].count += entries[i].count;
            entries[kept - 1].record = entries[i].record;
        }
    }
    for (size_t i = 0; i < kept; i++)
        entries[i].record = 0;
    counter->count = kept;
}

static int facets_reserve(struct facets_counter *counter, size_t more)
{
    if (more <= counter->room - counter->count)
        return OMENDB_OK;
    facets_add_up(counter);
    if (counter->count <= counter->room / 2 && more <= counter->room - counter->count)
        return OMENDB_OK;
    const size_t room =
        memory_add(memory_multiply(counter->count, 2), memory_add(more, FACETS_LEAST));
    struct facets_entry *entries =
        memory_resize(counter->memory, counter->entries, counter->room * sizeof *entries,
                      memory_multiply(room, sizeof *entries));
    if (entries == NULL)
        return OMENDB_NOMEM;
    counter->entries = entries;
    counter->room = room;
    return OMENDB_OK;
}

/* There is room. */
static void facets_add(struct facets_counter *counter, const struct document_value *value,
                       uint64_t count, uint64_t record)
{
    counter->entries[counter->count++] = (struct facets_entry){*value, count, record};
}

/* ------------------------------------------------------------------ segments */

static int facets_reserve_ranks(struct facets_counter *counter)
{
    const size_t needed = (size_t)counter->column.values + 1;
    if (needed > counter->rank_room) {
        memory_free(counter->memory, counter->ranks, counter->rank_room * sizeof *counter->ranks);
        counter->ranks = memory_array(counter->memory, needed, sizeof *counter->ranks);
        counter->rank_room = counter->ranks == NULL ? 0 : needed;
        if (counter->ranks == NULL)
            return OMENDB_NOMEM;
    }
    memset(counter->ranks, 0, needed * sizeof *counter->ranks);
    return OMENDB_OK;
}

static int facets_begin_segment(struct facets_counter *counter, const struct segment *segment)
{
    struct columns columns;
    int found = 0;
    counter->segment = segment;
    counter->way = segment->document_ends.length == 0 ? FACETS_NULL : FACETS_BY_DOCUMENT;
    if (counter->way == FACETS_NULL || segment->columns.length == 0)
        return OMENDB_OK;
    int code =
        columns_open(&segment->file->file->blocks, segment->columns, segment->info.rows, &columns);
    if (code == OMENDB_OK)
        code = columns_find(&columns, counter->name, counter->name_size, &counter->column, &found);
    if (code != OMENDB_OK || (!found && columns.incomplete))
        return code;
    if (!found)
        counter->way = FACETS_NULL;
    if (!found || counter->column.kind == COLUMN_NONE)
        return OMENDB_OK;
    counter->way = FACETS_BY_RANK;
    return facets_reserve_ranks(counter);
}

/* The values that were counted by rank, if any. */
static int facets_end_segment(struct facets_counter *counter)
{
    struct document_value value;
    int code = OMENDB_OK;
    const uint32_t values =
        counter->segment != NULL && counter->way == FACETS_BY_RANK ? counter->column.values : 0;
    counter->segment = NULL;
    for (uint32_t rank = 0; rank < values && code == OMENDB_OK; rank++) {
        if (counter->ranks[rank] == 0)
            continue;
        code = facets_reserve(counter, 1);
        if (code == OMENDB_OK)
            code = column_value(&counter->column, rank, &value);
        if (code == OMENDB_OK)
            facets_add(counter, &value, counter->ranks[rank], 0);
    }
    return code;
}

static void facets_count_ranks(struct facets_counter *counter, uint32_t row)
{
    uint32_t first, last, before = UINT32_MAX;
    column_elements(&counter->column, row, &first, &last);
    counter->nulls += first == last;
    for (uint32_t i = first; i < last; i++) {
        const uint32_t rank = column_rank(&counter->column, i);
        if (rank < counter->column.values && rank != before)
            counter->ranks[rank]++;
        before = rank;
    }
}

/* ------------------------------------------------------------------ records */

static int facets_count_document(struct facets_counter *counter, const uint8_t *document)
{
    struct document_value value, text = {.type = DOCUMENT_TEXT, .count = 1};
    uint32_t at = 0;
    document_find(document, counter->name, counter->name_size, counter->name_hash, &value);
    counter->nulls += value.type == DOCUMENT_NULL;
    if (facets_reserve(counter, value.type == DOCUMENT_TEXTS ? value.count : 1) != OMENDB_OK)
        return OMENDB_NOMEM;
    if (value.type == DOCUMENT_TEXTS) {
        while (document_next_text(&value, &at, &text.text, &text.size))
            facets_add(counter, &text, 1, counter->records);
    } else if (value.type != DOCUMENT_NULL) {
        facets_add(counter, &value, 1, 0);
    }
    return OMENDB_OK;
}

static int facets_count_record(void *context, const struct location *location,
                               const struct txn_write *own)
{
    struct facets_counter *counter = context;
    const uint8_t *document = own != NULL ? own->document : NULL;
    int code = OMENDB_OK;
    counter->records++;
    if (location->segment != counter->segment)
        code = facets_end_segment(counter);
    if (code == OMENDB_OK && location->segment != NULL && counter->segment == NULL)
        code = facets_begin_segment(counter, location->segment);
    if (code != OMENDB_OK)
        return code;
    const int by_column =
        location->segment != NULL && !overlay_may_have(location->overlay, location->row);
    if (by_column && counter->way == FACETS_BY_RANK) {
        facets_count_ranks(counter, location->row);
        return OMENDB_OK;
    }
    if (by_column && counter->way == FACETS_NULL) {
        counter->nulls++;
        return OMENDB_OK;
    }
    if (own == NULL)
        code = location_document(location, counter->commit, &document);
    return code == OMENDB_OK ? facets_count_document(counter, document) : code;
}

/* ------------------------------------------------------------------ the answer */

/* Texts were borrowed from the version until now. */
static int facets_copy_texts(omendb_facets *facets, struct memory *memory)
{
    size_t at = 0, bytes = 0;
    for (size_t i = 0; i < facets->count; i++)
        bytes = memory_add(bytes, (size_t)facets->entries[i].value.size + 1);
    facets->texts = memory_zalloc(memory, bytes);
    if (facets->texts == NULL)
        return OMENDB_NOMEM;
    facets->text_bytes = bytes;
    for (size_t i = 0; i < facets->count; i++) {
        struct document_value *value = &facets->entries[i].value;
        if (value->type != DOCUMENT_TEXT)
            continue;
        if (value->size != 0)
            memcpy(facets->texts + at, value->text, value->size);
        value->text = facets->texts + at;
        at += (size_t)value->size + 1;
    }
    return OMENDB_OK;
}

/* The `limit` values of the most records come first in the list, which is ascending; of those with
 * the least count the first ones. */
static int facets_choose(struct facets_counter *counter, size_t limit)
{
    struct facets_entry *entries = counter->entries;
    const size_t bytes = memory_multiply(counter->count, sizeof(uint64_t));
    uint64_t *counts = memory_alloc(counter->memory, bytes);
    size_t equal = limit, kept = 0;
    if (counts == NULL)
        return OMENDB_NOMEM;
    for (size_t i = 0; i < counter->count; i++)
        counts[i] = entries[i].count;
    sort_array(counts, counter->count, sizeof *counts, sort_compare_numbers);
    const uint64_t least = counts[counter->count - limit];
    while (equal > 0 && counts[counter->count - 1 - (limit - equal)] > least)
        equal--;
    memory_free(counter->memory, counts, bytes);
    for (size_t i = 0; i < counter->count; i++) {
        const int is_least = entries[i].count == least;
        if (entries[i].count > least || (is_least && equal > 0))
            entries[kept++] = entries[i];
        equal -= is_least && equal > 0;
    }
    return OMENDB_OK;
}

static int facets_keep(struct facets_counter *counter, omendb *db, size_t limit,
                       omendb_facets **facets)
{
    facets_add_up(counter);
    const size_t count = limit != 0 && limit < counter->count ? limit : counter->count;
    if (count < counter->count && facets_choose(counter, count) != OMENDB_OK)
        return OMENDB_NOMEM;
    omendb_facets *made = memory_zalloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->db = db;
    made->magic = FACETS_MAGIC;
    made->records = counter->records;
    made->nulls = counter->nulls;
    made->values = counter->count;
    sort_array(counter->entries, count, sizeof *counter->entries, facets_compare_counts);
    made->entries = memory_array(&db->memory, count, sizeof *made->entries);
    if (made->entries != NULL) {
        made->count = count;
        if (count != 0)
            memcpy(made->entries, counter->entries, count * sizeof *made->entries);
        if (facets_copy_texts(made, &db->memory) == OMENDB_OK) {
            *facets = made;
            return OMENDB_OK;
        }
    }
    facets_free(made);
    return OMENDB_NOMEM;
}

OMENDB_INTERNAL int facets_count(const struct search_request *request, const char *field,
                                 size_t limit, omendb_facets **facets)
{
    omendb *db = request->collection->db;
    struct facets_counter counter = {
        .memory = &db->memory, .commit = request->commit, .name = (const uint8_t *)field};
    counter.name_size = (uint32_t)strlen(field);
    counter.name_hash = document_hash_name(counter.name, counter.name_size);
    memory_begin_reading();
    int code = search_each_location(request, facets_count_record, &counter);
    if (code == OMENDB_OK)
        code = facets_end_segment(&counter);
    const int few = atomic_load(&db->open_cursors) < FACETS_IN_RESERVE;
    if (!few)
        memory_end_reading();
    if (code == OMENDB_OK)
        code = facets_keep(&counter, db, limit, facets);
    if (few)
        memory_end_reading();
    memory_free(counter.memory, counter.entries, counter.room * sizeof *counter.entries);
    memory_free(counter.memory, counter.ranks, counter.rank_room * sizeof *counter.ranks);
    return code;
}

static void facets_tell(const struct facets_entry *entry, omendb_facet *facet)
{
    const struct document_value *value = &entry->value;
    facet->struct_size = sizeof *facet;
    facet->count = entry->count;
    facet->type = value->type == DOCUMENT_TEXT      ? OMENDB_VALUE_TEXT
                  : value->type == DOCUMENT_REAL    ? OMENDB_VALUE_F64
                  : value->type == DOCUMENT_INTEGER ? OMENDB_VALUE_I64
                                                    : OMENDB_VALUE_BOOL;
    facet->i64 = value->type == DOCUMENT_INTEGER ? value->integer : value->type == DOCUMENT_TRUE;
    facet->f64 = value->type == DOCUMENT_REAL ? value->real : (double)facet->i64;
    facet->text = value->type == DOCUMENT_TEXT ? (const char *)value->text : NULL;
    facet->text_size = value->type == DOCUMENT_TEXT ? value->size : 0;
}

OMENDB_INTERNAL int facets_next(omendb_facets *facets, omendb_facet *facet)
{
    if (facets->next == facets->count)
        return OMENDB_DONE;
    facets_tell(&facets->entries[facets->next++], facet);
    return OMENDB_OK;
}

OMENDB_INTERNAL void facets_totals(const omendb_facets *facets, uint64_t *records, uint64_t *nulls,
                                   uint64_t *values)
{
    if (records != NULL)
        *records = facets->records;
    if (nulls != NULL)
        *nulls = facets->nulls;
    if (values != NULL)
        *values = facets->values;
}

OMENDB_INTERNAL void facets_free(omendb_facets *facets)
{
    struct memory *memory = &facets->db->memory;
    facets->magic = 0;
    memory_free(memory, facets->entries, facets->count * sizeof *facets->entries);
    memory_free(memory, facets->texts, facets->text_bytes);
    memory_free(memory, facets, sizeof *facets);
}

OMENDB_INTERNAL int facets_is_valid(const omendb_facets *facets)
{
    return facets != NULL && handle_is(facets, FACETS_MAGIC);
}

OMENDB_INTERNAL omendb *facets_database(const omendb_facets *facets)
{
    return facets->db;
}

#undef FACETS_LEAST
#undef FACETS_IN_RESERVE
