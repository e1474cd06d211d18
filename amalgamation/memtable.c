/* memtable.c: see memtable.h. */
#include "memtable.h"

#include "error.h"
#include "platform.h"

#include <string.h>

#define MEMTABLE_MANY_POOR 32   /* rows with poor codes; and a twentieth of all */
#define MEMTABLE_FORESEEN  1024 /* rows that take nothing unless there is room for all of them */

/* What a row's byte in `finished` says; new ones are zero. */
enum { MEMTABLE_FREE = 0, MEMTABLE_LINKED = 1, MEMTABLE_TAKEN = 2 };

OMENDB_INTERNAL int memtable_create(struct memory *memory, const struct graph_config *config,
                                    const struct code_format *codes, int graphless,
                                    struct memtable **memtable)
{
    struct graph_config walked = *config;
    struct memtable *made = memory_zalloc(memory, sizeof *made);
    *memtable = NULL;
    if (made == NULL)
        return OMENDB_NOMEM;
    made->memory = memory;
    made->vector_bytes = config->vector_bytes;
    made->codes = *codes;
    made->graphless = (uint32_t)graphless;
    atomic_init(&made->sealed, made->graphless);
    if (codes->step != 0.0f) {
        walked.vector_bytes = codes_stride(config->dim);
        walked.kernel = codes_kernel(codes);
    }
    atomic_init(&made->references, 1);
    rows_store_init(&made->vectors, memory, config->vector_bytes);
    rows_store_init(&made->ids, memory, sizeof(uint64_t));
    rows_store_init(&made->begins, memory, sizeof(uint64_t));
    rows_store_init(&made->previous, memory, sizeof(uint32_t));
    rows_store_init(&made->finished, memory, sizeof(uint8_t));
    idmap_init(&made->idmap, memory, &made->ids);
    made->tombstones = tombstones_create(memory);
    int code = made->tombstones == NULL
                   ? OMENDB_NOMEM
                   : graph_create(memory, &walked, NULL, NULL, 0, &made->graph);
    if (code != OMENDB_OK) {
        memtable_release(made);
        return code;
    }
    *memtable = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL struct memtable *memtable_reference(struct memtable *memtable)
{
    atomic_fetch_add_explicit(&memtable->references, 1, memory_order_relaxed);
    return memtable;
}

OMENDB_INTERNAL void memtable_release(struct memtable *memtable)
{
    if (memtable == NULL ||
        atomic_fetch_sub_explicit(&memtable->references, 1, memory_order_acq_rel) != 1)
        return;
    graph_destroy(memtable->graph);
    idmap_destroy(&memtable->idmap);
    rows_store_destroy(&memtable->vectors);
    rows_store_destroy(&memtable->ids);
    rows_store_destroy(&memtable->begins);
    rows_store_destroy(&memtable->previous);
    rows_store_destroy(&memtable->finished);
    tombstones_release(memtable->tombstones);
    memory_free(memtable->memory, memtable, sizeof *memtable);
}

/* Beside the graph, which then has something else or nothing as its rows. */
static int memtable_keeps_vectors(const struct memtable *memtable)
{
    return memtable->graphless || memtable->codes.step != 0.0f;
}

/* What makes room for them would keep its memory until a checkpoint, although they do not come. */
static int memtable_has_room(const struct memtable *memtable, uint32_t rows, uint32_t more)
{
    const struct rows_store *const stores[] = {&memtable->ids, &memtable->begins,
                                               &memtable->previous, &memtable->finished};
    size_t bytes = idmap_reserve_bytes(&memtable->idmap, more);
    if (!memtable->graphless)
        bytes = memory_add(bytes, graph_reserve_bytes(memtable->graph, rows));
    for (size_t i = 0; i < sizeof stores / sizeof stores[0]; i++)
        bytes = memory_add(bytes, rows_store_reserve_bytes(stores[i], rows));
    if (memtable_keeps_vectors(memtable))
        bytes = memory_add(bytes, rows_store_reserve_bytes(&memtable->vectors, rows));
    return memory_has_room(memtable->memory, bytes);
}

OMENDB_INTERNAL int memtable_reserve(struct memtable *memtable, uint32_t more)
{
    uint32_t count = atomic_load_explicit(&memtable->count, memory_order_relaxed);
    if (more > GRAPH_MAX_ROWS - count)
        return error_set(
            OMENDB_TOOBIG,
            "a memtable of %u rows cannot take %u more: at most 2^31; make a checkpoint", count,
            more);
    uint32_t rows = count + more;
    if (more >= MEMTABLE_FORESEEN && memtable->memory->limit != 0 &&
        !memtable_has_room(memtable, rows, more))
        return OMENDB_NOMEM;
    int code = rows_store_reserve(&memtable->ids, rows);
    if (code == OMENDB_OK)
        code = rows_store_reserve(&memtable->begins, rows);
    if (code == OMENDB_OK)
        code = rows_store_reserve(&memtable->previous, rows);
    if (code == OMENDB_OK)
        code = rows_store_reserve(&memtable->finished, rows);
    if (code == OMENDB_OK)
        code = idmap_reserve(&memtable->idmap, more);
    if (code == OMENDB_OK && memtable_keeps_vectors(memtable))
        code = rows_store_reserve(&memtable->vectors, rows);
    if (code == OMENDB_OK && !memtable->graphless)
        code = graph_reserve(memtable->graph, rows);
    return code;
}

static void memtable_put_vector(struct memtable *memtable, uint32_t row, const void *vector)
{
    struct rows_view vectors = rows_store_view(&memtable->vectors);
    uint8_t *at = memtable_keeps_vectors(memtable) ? rows_at(&vectors, row)
                                                   : graph_vector(memtable->graph, row);
    memcpy(at, vector, memtable->vector_bytes);
    if (memtable->codes.step == 0.0f)
        return;
    enum code_quality quality =
        codes_encode(&memtable->codes, vector, graph_vector(memtable->graph, row));
    if (quality != CODE_EXACT)
        atomic_store_explicit(&memtable->inexact, 1, memory_order_relaxed);
    if (quality == CODE_POOR)
        atomic_fetch_add_explicit(&memtable->poor, 1, memory_order_relaxed);
}

OMENDB_INTERNAL void memtable_append(struct memtable *memtable, uint64_t id, const void *vector,
                                     uint64_t commit, int is_new)
{
    uint32_t row = atomic_load_explicit(&memtable->count, memory_order_relaxed);
    struct rows_view ids = rows_store_view(&memtable->ids),
                     begins = rows_store_view(&memtable->begins);
    struct rows_view previous = rows_store_view(&memtable->previous);
    memtable_put_vector(memtable, row, vector);
    memcpy(rows_at(&ids, row), &id, sizeof id);
    memcpy(rows_at(&begins, row), &commit, sizeof commit);
    /* `previous` is read only by those who found the row in the table, so it is written before. */
    uint32_t older = is_new ? GRAPH_NO_ROW : memtable_find(memtable, id);
    memcpy(rows_at(&previous, row), &older, sizeof older);
    if (is_new)
        idmap_insert_new(&memtable->idmap, id, row);
    else
        idmap_insert(&memtable->idmap, id, row);
    OMENDB_YIELD("memtable_append, in the table");
    if (!memtable->graphless)
        graph_set_count(memtable->graph, row + 1);
    atomic_store_explicit(&memtable->newest_begin, commit, memory_order_relaxed);
    atomic_store_explicit(&memtable->count, row + 1, memory_order_release);
}

OMENDB_INTERNAL void memtable_prefetch(const struct memtable *memtable, uint64_t id)
{
    idmap_prefetch(&memtable->idmap, id);
}

OMENDB_INTERNAL struct rows_view memtable_vectors(const struct memtable *memtable)
{
    struct graph_view view;
    if (memtable_keeps_vectors(memtable))
        return rows_store_view(&memtable->vectors);
    graph_get_view(memtable->graph, &view);
    return view.vectors;
}

OMENDB_INTERNAL const uint8_t *memtable_vector(const struct memtable *memtable, uint32_t row)
{
    struct rows_view vectors = memtable_vectors(memtable);
    return rows_at(&vectors, row);
}

OMENDB_INTERNAL int memtable_has_drifted(const struct memtable *memtable)
{
    uint64_t poor = atomic_load_explicit(&memtable->poor, memory_order_relaxed);
    return poor > MEMTABLE_MANY_POOR &&
           poor * 20 > atomic_load_explicit(&memtable->count, memory_order_relaxed);
}

OMENDB_INTERNAL void memtable_forgive(struct memtable *memtable)
{
    atomic_store_explicit(&memtable->poor, 0, memory_order_relaxed);
}

OMENDB_INTERNAL uint32_t memtable_graph_rows(const struct memtable *memtable)
{
    uint32_t indexed = atomic_load_explicit(&memtable->indexed, memory_order_acquire);
    return memtable_has_drifted(memtable) ? 0 : indexed;
}

OMENDB_INTERNAL uint64_t memtable_id(const struct memtable *memtable, uint32_t row)
{
    struct rows_view view = rows_store_view(&memtable->ids);
    uint64_t id;
    memcpy(&id, rows_at(&view, row), sizeof id);
    return id;
}

OMENDB_INTERNAL uint64_t memtable_begin(const struct memtable *memtable, uint32_t row)
{
    struct rows_view view = rows_store_view(&memtable->begins);
    uint64_t begin;
    memcpy(&begin, rows_at(&view, row), sizeof begin);
    return begin;
}

OMENDB_INTERNAL uint32_t memtable_find(const struct memtable *memtable, uint64_t id)
{
    return idmap_find(&memtable->idmap, id);
}

OMENDB_INTERNAL uint32_t memtable_previous(const struct memtable *memtable, uint32_t row)
{
    struct rows_view view = rows_store_view(&memtable->previous);
    uint32_t previous;
    memcpy(&previous, rows_at(&view, row), sizeof previous);
    return previous;
}

OMENDB_INTERNAL uint32_t memtable_visible_rows(const struct memtable *memtable, uint64_t commit)
{
    uint32_t low = 0, high = atomic_load_explicit(&memtable->count, memory_order_acquire);
    if (high == 0 || memtable_begin(memtable, high - 1) <= commit)
        return high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (memtable_begin(memtable, middle) <= commit)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static _Atomic uint8_t *memtable_finished(const struct rows_view *finished, uint32_t row)
{
    return (_Atomic uint8_t *)rows_at(finished, row);
}

/* Moves `indexed` over all finished rows. Threads race to move it by one; whoever fails sees the
 * other's value and goes on. */
static void memtable_advance(struct memtable *memtable, uint32_t limit)
{
    struct rows_view finished = rows_store_view(&memtable->finished);
    uint32_t at = atomic_load(&memtable->indexed);
    while (at < limit && atomic_load(memtable_finished(&finished, at)) == MEMTABLE_LINKED) {
        if (atomic_compare_exchange_strong(&memtable->indexed, &at, at + 1))
            at++;
    }
}

OMENDB_INTERNAL int memtable_index(struct memtable *memtable, struct graph_scratch *scratch,
                                   uint64_t commit, uint32_t rows, uint32_t *done)
{
    int code = OMENDB_OK;
    uint32_t limit = memtable_visible_rows(memtable, commit);
    *done = 0;
    OMENDB_YIELD("memtable_index");
    atomic_fetch_add(&memtable->inserting, 1);
    while (*done < rows && code == OMENDB_OK && atomic_load(&memtable->sealed) == 0) {
        uint32_t row = atomic_load(&memtable->claimed);
        if (row >= limit)
            break;
        if (!atomic_compare_exchange_weak(&memtable->claimed, &row, row + 1))
            continue;
        struct rows_view finished = rows_store_view(&memtable->finished);
        uint8_t state = MEMTABLE_FREE;
        /* Claimed before: another thread failed at an earlier row and set `claimed` back. */
        if (!atomic_compare_exchange_strong(memtable_finished(&finished, row), &state,
                                            MEMTABLE_TAKEN))
            continue;
        OMENDB_YIELD("memtable_index, taken");
        code = graph_insert(memtable->graph, scratch, row);
        if (code != OMENDB_OK) {
            atomic_store(memtable_finished(&finished, row), MEMTABLE_FREE);
            uint32_t next = atomic_load(&memtable->claimed);
            while (next > row && !atomic_compare_exchange_weak(&memtable->claimed, &next, row))
                ;
            break;
        }
        atomic_store(memtable_finished(&finished, row), MEMTABLE_LINKED);
        memtable_advance(memtable, atomic_load_explicit(&memtable->count, memory_order_acquire));
        (*done)++;
    }
    atomic_fetch_sub(&memtable->inserting, 1);
    return code;
}

OMENDB_INTERNAL void memtable_seal(struct memtable *memtable)
{
    atomic_store(&memtable->sealed, 1);
    OMENDB_YIELD("memtable_seal");
    while (atomic_load(&memtable->inserting) != 0)
        platform_yield();
}

#undef MEMTABLE_MANY_POOR
#undef MEMTABLE_FORESEEN
