/* idmap.c: see idmap.h. Hash: the finaliser of MurmurHash3 as tuned by Stafford (mix 13), which is
 * public domain knowledge. Tables start from the id xor a seed, so that whoever chooses ids does
 * not know which meet in one place. A keyed hash would be surer of that, but each lookup would pay
 * 12 ns for it. */
#include "idmap.h"

#include "error.h"
#include "prefetch.h"

#include <string.h>

#define IDMAP_AHEAD 8 /* slots */

OMENDB_INTERNAL uint64_t idmap_mix(uint64_t value)
{
    value ^= value >> 30;
    value *= UINT64_C(0xbf58476d1ce4e5b9);
    value ^= value >> 27;
    value *= UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

static size_t idmap_table_bytes(uint32_t slots)
{
    return sizeof(struct idmap_table) + slots * sizeof(_Atomic uint32_t);
}

OMENDB_INTERNAL void idmap_init(struct idmap *map, struct memory *memory,
                                const struct rows_store *ids, uint64_t seed)
{
    memset(map, 0, sizeof *map);
    map->seed = seed;
    map->memory = memory;
    map->ids = ids;
}

OMENDB_INTERNAL void idmap_destroy(struct idmap *map)
{
    struct idmap_table *table = atomic_load_explicit(&map->table, memory_order_relaxed);
    while (table != NULL) {
        struct idmap_table *older = table->older;
        memory_free(map->memory, table, idmap_table_bytes(table->mask + 1));
        table = older;
    }
    atomic_store_explicit(&map->table, NULL, memory_order_relaxed);
}

static uint64_t idmap_row_id(const struct rows_view *ids, uint32_t row)
{
    uint64_t id;
    memcpy(&id, rows_at(ids, row), sizeof id);
    return id;
}

/* Where the search for an id begins. */
static uint32_t idmap_home(const struct idmap *map, const struct idmap_table *table, uint64_t id)
{
    return (uint32_t)idmap_mix(id ^ map->seed) & table->mask;
}

/* Slot that holds `id`, or the empty one where it belongs. The table is never full. */
static uint32_t idmap_probe(const struct idmap *map, const struct idmap_table *table,
                            const struct rows_view *ids, uint64_t id, uint32_t *row)
{
    uint32_t at = idmap_home(map, table, id);
    for (;; at = (at + 1) & table->mask) {
        uint32_t value = atomic_load_explicit(&table->slot[at], memory_order_acquire);
        *row = value - 1;
        if (value == 0 || idmap_row_id(ids, value - 1) == id)
            return at;
    }
}

/* Where an id goes that is not in the table: at the first empty slot, whatever the others hold. */
static void idmap_place(const struct idmap *map, struct idmap_table *table, uint64_t id,
                        uint32_t value, memory_order order)
{
    uint32_t at = idmap_home(map, table, id);
    while (atomic_load_explicit(&table->slot[at], memory_order_relaxed) != 0)
        at = (at + 1) & table->mask;
    atomic_store_explicit(&table->slot[at], value, order);
}

/* Into a larger table that nobody sees yet. The ids lie in the order of rows, the slots do not. */
static void idmap_copy(const struct idmap *map, const struct idmap_table *from,
                       const struct rows_view *ids, struct idmap_table *to)
{
    for (uint64_t i = 0; i <= from->mask; i++) {
        uint32_t value = atomic_load_explicit(&from->slot[i], memory_order_relaxed);
        uint32_t later =
            i + IDMAP_AHEAD > from->mask
                ? 0
                : atomic_load_explicit(&from->slot[i + IDMAP_AHEAD], memory_order_relaxed);
        if (later != 0)
            prefetch_line(rows_at(ids, later - 1));
        if (value != 0)
            idmap_place(map, to, idmap_row_id(ids, value - 1), value, memory_order_relaxed);
    }
}

/* Slots of the table that `more` ids need; 0: they fit into the one that is there. */
static uint64_t idmap_slots(const struct idmap *map, uint32_t more)
{
    const struct idmap_table *old = atomic_load_explicit(&map->table, memory_order_relaxed);
    uint64_t needed = (uint64_t)map->used + more;
    if (old != NULL && needed * 3 <= ((uint64_t)old->mask + 1) * 2)
        return 0;
    uint64_t slots = old == NULL ? 64 : (uint64_t)old->mask + 1;
    while (needed * 2 > slots)
        slots *= 2;
    return slots;
}

OMENDB_INTERNAL size_t idmap_reserve_bytes(const struct idmap *map, uint32_t more)
{
    uint64_t slots = idmap_slots(map, more);
    return slots == 0 || slots > UINT32_C(1) << 31 ? 0 : idmap_table_bytes((uint32_t)slots);
}

OMENDB_INTERNAL int idmap_reserve(struct idmap *map, uint32_t more)
{
    struct idmap_table *old = atomic_load_explicit(&map->table, memory_order_relaxed);
    uint64_t slots = idmap_slots(map, more), needed = (uint64_t)map->used + more;
    if (slots == 0)
        return OMENDB_OK;
    if (slots > UINT32_C(1) << 31)
        return error_set(OMENDB_TOOBIG, "a memtable of %llu ids; at most 2^30: make a checkpoint",
                         (unsigned long long)needed);
    struct idmap_table *table = memory_zalloc(map->memory, idmap_table_bytes((uint32_t)slots));
    if (table == NULL)
        return OMENDB_NOMEM;
    table->mask = (uint32_t)(slots - 1);
    table->older = old;
    struct rows_view ids = rows_store_view(map->ids);
    if (old != NULL)
        idmap_copy(map, old, &ids, table);
    atomic_store_explicit(&map->table, table, memory_order_release);
    return OMENDB_OK;
}

OMENDB_INTERNAL uint32_t idmap_insert(struct idmap *map, uint64_t id, uint32_t row)
{
    struct idmap_table *table = atomic_load_explicit(&map->table, memory_order_relaxed);
    struct rows_view ids = rows_store_view(map->ids);
    uint32_t previous, at = idmap_probe(map, table, &ids, id, &previous);
    if (previous == GRAPH_NO_ROW)
        map->used++;
    atomic_store_explicit(&table->slot[at], row + 1, memory_order_release);
    return previous;
}

OMENDB_INTERNAL void idmap_insert_new(struct idmap *map, uint64_t id, uint32_t row)
{
    struct idmap_table *table = atomic_load_explicit(&map->table, memory_order_relaxed);
    idmap_place(map, table, id, row + 1, memory_order_release);
    map->used++;
}

OMENDB_INTERNAL void idmap_prefetch(const struct idmap *map, uint64_t id)
{
    const struct idmap_table *table = atomic_load_explicit(&map->table, memory_order_relaxed);
    prefetch_line((const void *)&table->slot[idmap_home(map, table, id)]);
}

OMENDB_INTERNAL uint32_t idmap_find(const struct idmap *map, uint64_t id)
{
    const struct idmap_table *table = atomic_load_explicit(&map->table, memory_order_acquire);
    if (table == NULL)
        return GRAPH_NO_ROW;
    uint32_t at = idmap_home(map, table, id);
    for (;; at = (at + 1) & table->mask) {
        uint32_t value = atomic_load_explicit(&table->slot[at], memory_order_acquire);
        if (value == 0)
            return GRAPH_NO_ROW;
        /* Taken after the slot: the directory that it loads covers the row. */
        struct rows_view ids = rows_store_view(map->ids);
        if (idmap_row_id(&ids, value - 1) == id)
            return value - 1;
    }
}

OMENDB_INTERNAL size_t idmap_filter_bytes(uint32_t rows)
{
    return ((size_t)rows * 10 + 511) / 512 * IDMAP_FILTER_BLOCK +
           (rows == 0 ? IDMAP_FILTER_BLOCK : 0);
}

OMENDB_INTERNAL size_t idmap_filter_offset(size_t bytes, uint64_t id)
{
    uint64_t blocks = bytes / IDMAP_FILTER_BLOCK;
    return (size_t)(((idmap_mix(id) >> 32) * blocks) >> 32) * IDMAP_FILTER_BLOCK;
}

/* The six bits of `id` in its block, one at a time. */
static uint32_t idmap_filter_bit(uint64_t bits, int index)
{
    return (uint32_t)(bits >> (9 * index)) & 511;
}

OMENDB_INTERNAL void idmap_filter_add(uint8_t *filter, size_t bytes, uint64_t id)
{
    uint8_t *block = filter + idmap_filter_offset(bytes, id);
    uint64_t bits = idmap_mix(idmap_mix(id));
    for (int i = 0; i < 6; i++) {
        uint32_t bit = idmap_filter_bit(bits, i);
        block[bit >> 3] = (uint8_t)(block[bit >> 3] | (1u << (bit & 7)));
    }
}

OMENDB_INTERNAL int idmap_filter_has(const uint8_t *block, uint64_t id)
{
    uint64_t bits = idmap_mix(idmap_mix(id));
    for (int i = 0; i < 6; i++) {
        uint32_t bit = idmap_filter_bit(bits, i);
        if (((block[bit >> 3] >> (bit & 7)) & 1) == 0)
            return 0;
    }
    return 1;
}

#undef IDMAP_AHEAD
