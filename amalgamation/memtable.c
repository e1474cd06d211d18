/* memtable.c: see memtable.h. */
#include "memtable.h"

#include "error.h"
#include "platform.h"

#include <string.h>

#define MEMTABLE_MANY_POOR 32   /* rows with poor codes; and a twentieth of all */
#define MEMTABLE_FORESEEN  1024 /* rows that take nothing unless there is room for all of them */
#define MEMTABLE_BLOCK_MIN ((size_t)1 << 10)  /* bytes of a block of documents; each next one is */
#define MEMTABLE_BLOCK_MAX ((size_t)64 << 10) /* twice as large, up to this */

/* What a row's byte in `finished` says; new ones are zero. */
enum { MEMTABLE_FREE = 0, MEMTABLE_LINKED = 1, MEMTABLE_TAKEN = 2 };

struct document_block {
    struct document_block *next;
    size_t capacity, used; /* of `bytes` */
    uint8_t bytes[];
};

OMENDB_INTERNAL int memtable_create(struct memory *memory, const struct graph_config *config,
                                    const struct code_format *codes, int graphless,
                                    const struct hash_seed *seed, struct memtable **memtable)
{
    struct graph_config walked = *config;
    struct memtable *made = memory_zalloc(memory, sizeof *made);
    *memtable = NULL;
    if (made == NULL)
        return OMENDB_NOMEM;
    made->memory = memory;
    made->vector_bytes = config->vector_bytes;
    made->codes = *codes;
    made->seed = *seed;
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
    idmap_init(&made->idmap, memory, &made->ids, seed->half[0]);
    rows_store_init(&made->documents, memory, sizeof(uint8_t *));
    rows_store_init(&made->key_hashes, memory, sizeof(uint64_t));
    rows_store_init(&made->key_previous, memory, sizeof(uint32_t));
    idmap_init(&made->keymap, memory, &made->key_hashes, seed->half[1]);
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
    idmap_destroy(&memtable->keymap);
    rows_store_destroy(&memtable->documents);
    rows_store_destroy(&memtable->key_hashes);
    rows_store_destroy(&memtable->key_previous);
    while (memtable->blocks != NULL) {
        struct document_block *block = memtable->blocks;
        memtable->blocks = block->next;
        memory_free(memtable->memory, block, sizeof *block + block->capacity);
    }
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
static int memtable_has_room(const struct memtable *memtable, uint32_t rows, uint32_t more,
                             size_t documents)
{
    const struct rows_store *const stores[] = {&memtable->ids, &memtable->begins,
                                               &memtable->previous, &memtable->finished};
    size_t bytes = memory_add(idmap_reserve_bytes(&memtable->idmap, more), documents);
    if (!memtable->graphless)
        bytes = memory_add(bytes, graph_reserve_bytes(memtable->graph, rows));
    for (size_t i = 0; i < sizeof stores / sizeof stores[0]; i++)
        bytes = memory_add(bytes, rows_store_reserve_bytes(stores[i], rows));
    if (memtable_keeps_vectors(memtable))
        bytes = memory_add(bytes, rows_store_reserve_bytes(&memtable->vectors, rows));
    return memory_has_room(memtable->memory, bytes);
}

/* A block that has room for them; what is left in the one before stays unused. */
static int memtable_reserve_block(struct memtable *memtable, size_t bytes)
{
    const struct document_block *newest = memtable->blocks;
    if (newest != NULL && newest->capacity - newest->used >= bytes)
        return OMENDB_OK;
    size_t capacity = newest == NULL ? MEMTABLE_BLOCK_MIN : newest->capacity * 2;
    capacity = capacity > MEMTABLE_BLOCK_MAX ? MEMTABLE_BLOCK_MAX : capacity;
    capacity = capacity < bytes ? bytes : capacity;
    struct document_block *block =
        memory_alloc(memtable->memory, memory_add(sizeof *block, capacity));
    if (block == NULL)
        return OMENDB_NOMEM;
    *block = (struct document_block){memtable->blocks, capacity, 0};
    memtable->blocks = block;
    return OMENDB_OK;
}

static int memtable_reserve_documents(struct memtable *memtable, uint32_t rows, uint32_t keys,
                                      size_t documents)
{
    int code = OMENDB_OK;
    if (documents != 0 || atomic_load_explicit(&memtable->documented, memory_order_relaxed))
        code = rows_store_reserve(&memtable->documents, rows);
    if (code == OMENDB_OK && documents != 0)
        code = memtable_reserve_block(memtable, documents);
    if (code != OMENDB_OK || keys == 0)
        return code;
    code = rows_store_reserve(&memtable->key_hashes, rows);
    if (code == OMENDB_OK)
        code = rows_store_reserve(&memtable->key_previous, rows);
    return code == OMENDB_OK ? idmap_reserve(&memtable->keymap, keys) : code;
}

OMENDB_INTERNAL int memtable_reserve(struct memtable *memtable, uint32_t more, uint32_t keys,
                                     size_t documents)
{
    uint32_t count = atomic_load_explicit(&memtable->count, memory_order_relaxed);
    if (more > GRAPH_MAX_ROWS - count)
        return error_set(
            OMENDB_TOOBIG,
            "a memtable of %u rows cannot take %u more: at most 2^31; make a checkpoint", count,
            more);
    uint32_t rows = count + more;
    if (more >= MEMTABLE_FORESEEN && memtable->memory->limit != 0 &&
        !memtable_has_room(memtable, rows, more, documents))
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
    return code == OMENDB_OK ? memtable_reserve_documents(memtable, rows, keys, documents) : code;
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

static void memtable_put_key(struct memtable *memtable, uint32_t row, const uint8_t *key,
                             uint32_t size)
{
    struct rows_view hashes = rows_store_view(&memtable->key_hashes),
                     previous = rows_store_view(&memtable->key_previous);
    uint64_t hash = hash_bytes(&memtable->seed, key, size);
    uint32_t older = idmap_find(&memtable->keymap, hash);
    /* Read only by those who found the row in the table. */
    memcpy(rows_at(&hashes, row), &hash, sizeof hash);
    memcpy(rows_at(&previous, row), &older, sizeof older);
    idmap_insert(&memtable->keymap, hash, row);
}

/* Written before the row is found by anybody. */
static const uint8_t *memtable_put_document(struct memtable *memtable, uint32_t row,
                                            const uint8_t *document)
{
    struct document_block *block = memtable->blocks;
    uint32_t size = document_size(document);
    if (document == NULL)
        return NULL;
    uint8_t *copy = block->bytes + block->used;
    memcpy(copy, document, size);
    block->used += size;
    struct rows_view documents = rows_store_view(&memtable->documents);
    memcpy(rows_at(&documents, row), &copy, sizeof copy);
    atomic_store_explicit(&memtable->documented, 1, memory_order_release);
    return copy;
}

OMENDB_INTERNAL void memtable_append(struct memtable *memtable, uint64_t id, const void *vector,
                                     const uint8_t *document, uint64_t commit, int is_new)
{
    uint32_t row = atomic_load_explicit(&memtable->count, memory_order_relaxed);
    struct rows_view ids = rows_store_view(&memtable->ids),
                     begins = rows_store_view(&memtable->begins);
    struct rows_view previous = rows_store_view(&memtable->previous);
    memtable_put_vector(memtable, row, vector);
    document = memtable_put_document(memtable, row, document);
    memcpy(rows_at(&ids, row), &id, sizeof id);
    memcpy(rows_at(&begins, row), &commit, sizeof commit);
    /* `previous` is read only by those who found the row in the table, so it is written before. */
    uint32_t older = is_new ? GRAPH_NO_ROW : memtable_find(memtable, id);
    memcpy(rows_at(&previous, row), &older, sizeof older);
    if (is_new)
        idmap_insert_new(&memtable->idmap, id, row);
    else
        idmap_insert(&memtable->idmap, id, row);
    uint32_t key_size;
    const uint8_t *key = document_key(document, &key_size);
    if (key != NULL)
        memtable_put_key(memtable, row, key, key_size);
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

OMENDB_INTERNAL const uint8_t *memtable_document(const struct memtable *memtable, uint32_t row)
{
    const uint8_t *document;
    if (!atomic_load_explicit(&memtable->documented, memory_order_acquire))
        return NULL;
    struct rows_view documents = rows_store_view(&memtable->documents);
    memcpy(&document, rows_at(&documents, row), sizeof document);
    return document;
}

OMENDB_INTERNAL uint64_t memtable_document_bytes(const struct memtable *memtable)
{
    uint64_t bytes = 0;
    for (const struct document_block *block = memtable->blocks; block != NULL; block = block->next)
        bytes += block->used;
    return bytes;
}

/* `row`, or the next older one of its hash that has the key. */
static uint32_t memtable_match_key(const struct memtable *memtable, const uint8_t *key,
                                   uint32_t size, uint32_t row)
{
    struct rows_view previous = rows_store_view(&memtable->key_previous);
    while (row != GRAPH_NO_ROW) {
        uint32_t found;
        const uint8_t *stored = document_key(memtable_document(memtable, row), &found);
        if (found == size && memcmp(stored, key, size) == 0)
            break;
        memcpy(&row, rows_at(&previous, row), sizeof row);
    }
    return row;
}

OMENDB_INTERNAL uint32_t memtable_find_key(const struct memtable *memtable, const uint8_t *key,
                                           uint32_t size, uint64_t hash)
{
    return memtable_match_key(memtable, key, size, idmap_find(&memtable->keymap, hash));
}

OMENDB_INTERNAL uint32_t memtable_previous_key(const struct memtable *memtable, const uint8_t *key,
                                               uint32_t size, uint32_t row)
{
    struct rows_view previous = rows_store_view(&memtable->key_previous);
    memcpy(&row, rows_at(&previous, row), sizeof row);
    return memtable_match_key(memtable, key, size, row);
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
#undef MEMTABLE_BLOCK_MIN
#undef MEMTABLE_BLOCK_MAX
