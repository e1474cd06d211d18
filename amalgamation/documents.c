/* documents.c: documents and keys of stored rows, wherever they are: of a row its document, of a
 * key its row.
 *
 * In a segment the documents lie one after the other in the order of rows; DOCUMENT_ENDS has for
 * each row where its own ends, so that the one before tells where it begins; a row without one is
 * empty. Keys are found through their hashes in ascending order with the row of each, which are
 * spread evenly, so that a guess by proportion is some places off; absent ones mostly by a Bloom
 * filter, as ids are. What is found by a hash is compared with the key itself. The hashes have the
 * seed of the opening that wrote the segment, which lies before them.
 *
 * A segment that was written before there were documents, or in which no row has one, has none of
 * these sections.
 *
 * An update leaves the row, and the key in its document, as they are; the document that it gave
 * lies in an overlay (overlay.h), which is asked first. */
#include "database.h"

#include <string.h>

#define DOCUMENTS_PROBES 8 /* guesses by proportion before the rest is halved */

static int documents_bad(const struct segment *segment, uint32_t row, const char *why)
{
    return error_set(OMENDB_CORRUPT, "seg-%llu: part %u: the document of row %u %s; " ERROR_RESTORE,
                     (unsigned long long)segment->file->entry.number, segment->part, row, why);
}

static int documents_number(const struct segment *segment, struct section_range range,
                            uint64_t index, size_t bytes, void *out)
{
    struct block_file *file = &segment->file->file->blocks;
    uint64_t offset = range.offset + index * bytes;
    int code = blocks_touch(file, offset, bytes);
    if (code == OMENDB_OK)
        memcpy(out, file->base + offset, bytes);
    return code;
}

/* Where a row's document lies; begin == end: it has none. */
static int documents_place(const struct segment *segment, uint32_t row, uint64_t *begin,
                           uint64_t *end)
{
    int code = OMENDB_OK;
    *begin = *end = 0;
    if (segment->document_ends.length == 0)
        return OMENDB_OK;
    if (row != 0)
        code = documents_number(segment, segment->document_ends, row - 1, sizeof *begin, begin);
    if (code == OMENDB_OK)
        code = documents_number(segment, segment->document_ends, row, sizeof *end, end);
    return code;
}

OMENDB_INTERNAL int segment_document(const struct segment *segment, uint32_t row,
                                     const uint8_t **document)
{
    struct block_file *file = &segment->file->file->blocks;
    uint64_t begin, end;
    int code = documents_place(segment, row, &begin, &end);
    *document = NULL;
    if (code != OMENDB_OK || begin == end)
        return code;
    if (begin > end || end > segment->documents.length || end - begin > DOCUMENT_BYTES_MAX)
        return documents_bad(segment, row, "lies outside of all documents");
    code = blocks_touch(file, segment->documents.offset + begin, end - begin);
    if (code != OMENDB_OK)
        return code;
    const uint8_t *found = file->base + segment->documents.offset + begin;
    const char *wrong = document_check(found, (size_t)(end - begin));
    if (wrong != NULL)
        return documents_bad(segment, row, wrong);
    *document = found;
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ rows by key */

/* The key's hash by this seed, which most often is that of the source before. */
static uint64_t documents_hash(struct key_probe *probe, const struct hash_seed *seed)
{
    if (!probe->hashed || memcmp(&probe->seed, seed, sizeof *seed) != 0) {
        probe->hash = hash_bytes(seed, probe->key, probe->size);
        probe->seed = *seed;
        probe->hashed = 1;
    }
    return probe->hash;
}

static uint64_t documents_key_count(const struct segment *segment)
{
    return segment->key_hashes.length / sizeof(uint64_t);
}

static int documents_may_have(const struct segment *segment, uint64_t hash, int *may)
{
    struct block_file *file = &segment->file->file->blocks;
    uint64_t offset =
        segment->key_filter.offset + idmap_filter_offset((size_t)segment->key_filter.length, hash);
    int code = blocks_touch(file, offset, IDMAP_FILTER_BLOCK);
    *may = code == OMENDB_OK && idmap_filter_has(file->base + offset, hash);
    return code;
}

/* Where a hash is expected between two places, of which the first holds `low` or more and what lies
 * before the second is at most `high`. */
static uint64_t documents_guess(uint64_t first, uint64_t last, uint64_t low, uint64_t high,
                                uint64_t hash)
{
    if (hash <= low || high <= low)
        return first;
    double share = (double)(hash - low) / (double)(high - low);
    uint64_t at = first + (uint64_t)(share * (double)(last - first));
    return at < last ? at : last - 1;
}

/* First place of the ascending hashes that is not below `hash`. Guesses by proportion; where those
 * do not come near, as in a file that lies, by halves. */
static int documents_lower_bound(const struct segment *segment, uint64_t hash, uint64_t *place)
{
    uint64_t first = 0, last = documents_key_count(segment), low = 0, high = UINT64_MAX;
    for (int probes = 0; first < last; probes++) {
        uint64_t value, at = probes < DOCUMENTS_PROBES
                                 ? documents_guess(first, last, low, high, hash)
                                 : first + (last - first) / 2;
        int code = documents_number(segment, segment->key_hashes, at, sizeof value, &value);
        if (code != OMENDB_OK)
            return code;
        if (value < hash) {
            first = at + 1;
            low = value;
        } else {
            last = at;
            high = value;
        }
    }
    *place = first;
    return OMENDB_OK;
}

/* The row at a place of the hashes, if it has that hash and the key; else GRAPH_NO_ROW. *same: it
 * has the hash. */
static int documents_row_at(const struct segment *segment, uint64_t place,
                            const struct key_probe *probe, int *same, uint32_t *row)
{
    const uint8_t *document;
    uint64_t value;
    uint32_t found, stored_size;
    *row = GRAPH_NO_ROW;
    int code = documents_number(segment, segment->key_hashes, place, sizeof value, &value);
    *same = code == OMENDB_OK && value == probe->hash;
    if (!*same)
        return code;
    code = documents_number(segment, segment->key_rows, place, sizeof found, &found);
    if (code == OMENDB_OK && found >= segment->info.rows)
        return error_set(OMENDB_CORRUPT,
                         "seg-%llu: part %u: a key is said to be of row %u of %u; " ERROR_RESTORE,
                         (unsigned long long)segment->file->entry.number, segment->part, found,
                         segment->info.rows);
    if (code == OMENDB_OK)
        code = segment_document(segment, found, &document);
    if (code != OMENDB_OK)
        return code;
    const uint8_t *stored = document_key(document, &stored_size);
    if (stored_size == probe->size && memcmp(stored, probe->key, probe->size) == 0)
        *row = found;
    return OMENDB_OK;
}

/* The first place that may have the key; *may 0: none has it. */
static int documents_first_place(const struct segment *segment, struct key_probe *probe, int *may,
                                 uint64_t *place)
{
    struct hash_seed seed;
    *may = 0;
    if (documents_key_count(segment) == 0)
        return OMENDB_OK;
    int code = documents_number(segment, segment->key_seed, 0, sizeof seed, &seed);
    if (code == OMENDB_OK)
        code = documents_may_have(segment, documents_hash(probe, &seed), may);
    return code == OMENDB_OK && *may ? documents_lower_bound(segment, probe->hash, place) : code;
}

OMENDB_INTERNAL int segment_find_key(const struct segment *segment, struct key_probe *probe,
                                     uint64_t *cursor, uint32_t *row)
{
    uint64_t place = *cursor;
    int same = 1, may = 1, code = OMENDB_OK;
    *row = GRAPH_NO_ROW;
    if (place == 0)
        code = documents_first_place(segment, probe, &may, &place);
    if (code != OMENDB_OK || !may)
        return code;
    while (place < documents_key_count(segment) && same && *row == GRAPH_NO_ROW &&
           code == OMENDB_OK)
        code = documents_row_at(segment, place++, probe, &same, row);
    *cursor = place;
    return code;
}

static int documents_live_in_segments(const struct version *version, struct key_probe *probe,
                                      struct location *location, uint64_t *newest_change)
{
    for (uint32_t i = version->segment_count; i-- > 0;) {
        struct segment *segment = version->segments[i];
        uint64_t cursor = 0;
        uint32_t row;
        do {
            int code = segment_find_key(segment, probe, &cursor, &row);
            if (code != OMENDB_OK)
                return code;
            if (row == GRAPH_NO_ROW)
                break;
            uint64_t end = tombstones_get(segment->tombstones, row);
            uint64_t begin = segment->begins == NULL ? 0 : segment->begins->begin[row];
            *newest_change = end > *newest_change ? end : *newest_change;
            *newest_change = begin > *newest_change ? begin : *newest_change;
            if (end == 0)
                *location = (struct location){NULL, segment, version->segment_overlays[i], row};
        } while (row != GRAPH_NO_ROW);
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int version_locate_live_key(const struct version *version, const uint8_t *key,
                                            uint32_t size, struct location *location,
                                            uint64_t *newest_change)
{
    struct key_probe probe = {.key = key, .size = size};
    memset(location, 0, sizeof *location);
    *newest_change = 0;
    for (uint32_t i = version->memtable_count; i-- > 0;) {
        struct memtable *memtable = version->memtables[i];
        uint32_t row =
            memtable_find_key(memtable, key, size, documents_hash(&probe, &memtable->seed));
        if (row == GRAPH_NO_ROW)
            continue;
        /* The newest row of a key decides: whatever is older ended before it began. */
        uint64_t end = tombstones_get(memtable->tombstones, row);
        *newest_change = end != 0 ? end : memtable_begin(memtable, row);
        if (end == 0)
            *location = (struct location){memtable, NULL, version->memtable_overlays[i], row};
        return OMENDB_OK;
    }
    return documents_live_in_segments(version, &probe, location, newest_change);
}

/* Whether the memtable has the last word on the key: a row that began at or before `commit`. */
static int documents_locate_in_memtable(const struct version *version, uint32_t index,
                                        struct key_probe *probe, uint64_t commit,
                                        struct location *location)
{
    struct memtable *memtable = version->memtables[index];
    const uint64_t hash = documents_hash(probe, &memtable->seed);
    for (uint32_t row = memtable_find_key(memtable, probe->key, probe->size, hash);
         row != GRAPH_NO_ROW; row = memtable_previous_key(memtable, probe->key, probe->size, row)) {
        uint64_t end = tombstones_get(memtable->tombstones, row);
        if (memtable_begin(memtable, row) > commit)
            continue;
        if (end == 0 || end > commit)
            *location = (struct location){memtable, NULL, version->memtable_overlays[index], row};
        return 1;
    }
    return 0;
}

OMENDB_INTERNAL int version_locate_key(const struct version *version, const uint8_t *key,
                                       uint32_t size, uint64_t commit, struct location *location)
{
    struct key_probe probe = {.key = key, .size = size};
    memset(location, 0, sizeof *location);
    for (uint32_t i = version->memtable_count; i-- > 0;) {
        if (documents_locate_in_memtable(version, i, &probe, commit, location))
            return OMENDB_OK;
    }
    for (uint32_t i = version->segment_count; i-- > 0;) {
        uint64_t cursor = 0;
        uint32_t row;
        do {
            int code = segment_find_key(version->segments[i], &probe, &cursor, &row);
            if (code != OMENDB_OK)
                return code;
            if (row != GRAPH_NO_ROW && segment_row_visible(version->segments[i], row, commit)) {
                *location = (struct location){NULL, version->segments[i],
                                              version->segment_overlays[i], row};
                return OMENDB_OK;
            }
        } while (row != GRAPH_NO_ROW);
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int location_id(const struct location *location, uint64_t *id)
{
    if (location->segment != NULL)
        return segment_id(location->segment, location->row, id);
    *id = memtable_id(location->memtable, location->row);
    return OMENDB_OK;
}

OMENDB_INTERNAL int memtable_document_at(const struct memtable *memtable,
                                         const struct overlay *overlay, uint32_t row,
                                         uint64_t commit, const uint8_t **document)
{
    struct overlay_version found;
    int code = overlay_find(overlay, row, commit, &found);
    *document = found.commit != 0 ? found.document : memtable_document(memtable, row);
    return code;
}

OMENDB_INTERNAL int segment_document_at(const struct segment *segment,
                                        const struct overlay *overlay, uint32_t row,
                                        uint64_t commit, const uint8_t **document)
{
    struct overlay_version found;
    int code = overlay_find(overlay, row, commit, &found);
    *document = found.document;
    return code == OMENDB_OK && found.commit == 0 ? segment_document(segment, row, document) : code;
}

OMENDB_INTERNAL int location_document(const struct location *location, uint64_t commit,
                                      const uint8_t **document)
{
    return location->segment != NULL ? segment_document_at(location->segment, location->overlay,
                                                           location->row, commit, document)
                                     : memtable_document_at(location->memtable, location->overlay,
                                                            location->row, commit, document);
}

OMENDB_INTERNAL int location_document_bytes(const struct location *location, uint64_t commit,
                                            uint32_t *bytes)
{
    struct overlay_version found;
    uint64_t begin = 0, end = 0;
    int code = overlay_find(location->overlay, location->row, commit, &found);
    *bytes = 0;
    if (code == OMENDB_OK && found.commit != 0)
        *bytes = found.document == NULL ? 0 : document_size(found.document);
    else if (code == OMENDB_OK && location->segment == NULL)
        *bytes = document_size(memtable_document(location->memtable, location->row));
    else if (code == OMENDB_OK)
        code = documents_place(location->segment, location->row, &begin, &end);
    if (code == OMENDB_OK && begin < end && end - begin <= DOCUMENT_BYTES_MAX)
        *bytes = (uint32_t)(end - begin);
    return code == OMENDB_CORRUPT ? OMENDB_OK : code;
}

#undef DOCUMENTS_PROBES
