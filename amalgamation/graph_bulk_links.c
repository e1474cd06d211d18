/* graph_bulk_links.c: bulk building chooses the base lists, in two stages over all members.
 *
 * Refining: a member meets the neighbours of its BULK_EXPAND nearest and chooses its list among the
 * best LINKS_POOL of all, and the links at level 1 of the nearest that has some, which lead out of
 * a cluster. In a graph of one leaf it meets all others. Accepting: it chooses again among its list
 * and those who chose it, BULK_OFFERS at most.
 *
 * Choosing is that of HNSW first (near to far, none that a chosen one is nearer to than the owner);
 * free places then go, near to far, to candidates that a chosen one is nearer to, but not by the
 * factor alpha: Vamana's pruning (DiskANN, NeurIPS 2019) in two passes, without which the nearest
 * fill the list before a far one has its turn (10 to 20 % more distances). Distances under L2,
 * cosine and Hamming are squares (for cosine, half of those of unit vectors) and meet alpha
 * squared; under inner product they are replaced, see bulk_distances.
 *
 * Invariants. A list is written by the step of its member alone, while others read it and walkers
 * may: slot by slot, each of them a link or the member itself. At most half of a pool is at one
 * distance, so that a row beside a mass of copies meets others as well.
 *
 * Rejected: a second refinement (a third more time for 1 to 2 % fewer distances). Pools of 100 to
 * 200 candidates (3 to 5 % more distances: long links take the places). Links back one by one with
 * a choice at each full list, as in Vamana, instead of one choice among all of them (several times
 * its work). */
#include "graph_bulk_internal.h"

#define LINKS_POOL         48    /* nearest candidates among which a list is chosen */
#define LINKS_FAR_SHARE    4     /* 1 / the share of a list that is left to far candidates */
#define LINKS_ALPHA        1.15f /* of true distances, not squares */
#define LINKS_ALPHA_SQUARE (LINKS_ALPHA * LINKS_ALPHA)
#define LINKS_GROUP        4 /* chosen ones that a candidate is compared with at a time */

/* Finding candidates */

static void links_find_begin(struct bulk_work *work, uint32_t member)
{
    memset(work->hash, 0xff, ((size_t)work->hash_mask + 1) * sizeof *work->hash);
    work->found_count = 0;
    work->hash[(member * BULK_GOLDEN) >> 8 & work->hash_mask] = member;
}

/* Adds a member to those found unless it is there or is the one that they are found for. */
static void links_find(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    const size_t stride = bulk->view.vectors.stride;
    uint32_t at = (member * BULK_GOLDEN) >> 8 & work->hash_mask;

    while (work->hash[at] != GRAPH_NO_ROW && work->hash[at] != member) {
        at = (at + 1) & work->hash_mask;
    }
    if (work->hash[at] == member || work->found_count == bulk->room) {
        return;
    }
    work->hash[at] = member;
    work->vectors[work->found_count] = bulk_vector(bulk, member);
    prefetch_bytes(work->vectors[work->found_count],
                   stride < PREFETCH_MAX_BYTES ? stride : PREFETCH_MAX_BYTES);
    work->found[work->found_count++] = member;
}

static void links_find_list(const struct bulk *bulk, struct bulk_work *work, uint32_t of)
{
    const uint32_t *list = bulk_list(bulk, of);

    for (uint32_t i = 0; i < bulk->places; i++) {
        const uint32_t member = graph_slot_load(&list[i]);
        if (member != of) {
            links_find(bulk, work, member);
        }
    }
}

/* The links of the level above of the member itself or, where it has none, of the nearest one known
 * that has, with that one. */
static void links_find_above(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    uint32_t upper = member, *slots, length;

    for (uint32_t i = 0; bulk->uppers == NULL && i < work->found_count; i++) {
        upper = bulk_is_upper(bulk, upper) ? upper : work->found[i];
    }
    if (bulk->uppers != NULL && !bulk_is_upper(bulk, upper)) {
        upper = bulk->uppers[member];
    }
    if (upper == GRAPH_NO_ROW || !bulk_is_upper(bulk, upper)) {
        return;
    }
    (void)graph_view_slots(&bulk->view, upper, 1, &slots, &length);
    links_find(bulk, work, upper);
    for (uint32_t i = 0; i < length; i++) {
        links_find(bulk, work, graph_slot_load(&slots[i]));
    }
}

static void links_sift(uint64_t *heap, size_t count, size_t at)
{
    const uint64_t key = heap[at];

    for (size_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        child += child + 1 < count && heap[child + 1] < heap[child];
        if (heap[child] >= key) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = key;
}

/* The parts of what was found: the first `own` are the member's list, those up to `kept` the links
 * of the level above. */
struct links_parts {
    uint32_t own;
    uint32_t kept;
    uint32_t far; /* where those begin that are candidates however far they are; they end at kept.
                     0: only the farthest of the own list are */
};

/* Makes work->keys a heap of what was found, the nearest on top, and returns its size; what is
 * farther than all of a full own list is left out. Far candidates are sorted in work->far_keys. */
static uint32_t links_measure(const struct bulk *bulk, struct bulk_work *work, uint32_t member,
                              struct links_parts parts)
{
    uint64_t farthest = parts.own < bulk->places ? GRAPH_KEY_NONE : 0;
    uint32_t count = 0;

    work->far_count = 0;
    bulk_distances(bulk, member, work->found, work->vectors, work->found_count, work->distances);
    for (uint32_t i = 0; i < work->found_count; i++) {
        const uint64_t key = graph_key(work->distances[i], work->found[i] ^ member);
        if (i < parts.own) {
            farthest = key > farthest ? key : farthest;
        }
        if (i < parts.own || key < farthest) {
            work->keys[count++] = key;
        }
        if (i >= parts.far && i < parts.kept) {
            work->far_keys[work->far_count++] = key;
        }
    }
    graph_sort_keys(work->far_keys, work->far_count);
    if (parts.far == 0 && work->far_count > bulk->places / LINKS_FAR_SHARE) {
        const uint32_t left = bulk->places / LINKS_FAR_SHARE;
        memmove(work->far_keys, work->far_keys + work->far_count - left,
                left * sizeof *work->far_keys);
        work->far_count = left;
    }
    for (uint32_t i = count / 2; i > 0; i--) {
        links_sift(work->keys, count, i - 1);
    }
    return count;
}

/* Choosing */

/* Whether a chosen one is nearer to the candidate, even by the factor, than the owner is. */
static int links_is_covered(const struct bulk *bulk, const struct bulk_work *work, uint32_t chosen,
                            uint64_t key, uint32_t candidate, float factor)
{
    float distances[LINKS_GROUP];

    for (uint32_t i = 0; i < chosen; i += LINKS_GROUP) {
        const uint32_t group = chosen - i < LINKS_GROUP ? chosen - i : LINKS_GROUP;
        bulk_distances(bulk, candidate, work->chosen + i, work->chosen_vectors + i, group,
                       distances);
        for (uint32_t j = 0; j < group; j++) {
            if (graph_key(distances[j] * factor, work->chosen[i + j] ^ candidate) < key) {
                return 1;
            }
        }
    }
    return 0;
}

static uint32_t links_take(const struct bulk *bulk, struct bulk_work *work, uint32_t chosen,
                           uint32_t candidate)
{
    work->chosen[chosen] = candidate;
    work->chosen_vectors[chosen] = bulk_vector(bulk, candidate);
    return chosen + 1;
}

/* Chooses at most bulk->places of the nearest `pool` of the heap of `count` keys and writes them to
 * the member's list. Rejected keys gather behind the shrinking heap, the first one last. At most
 * half of the pool may be at one distance. */
static void links_choose(const struct bulk *bulk, struct bulk_work *work, uint32_t member,
                         uint32_t count, uint32_t pool)
{
    uint64_t *keys = work->keys, last = 0;
    uint32_t *list = bulk_list(bulk, member);
    uint32_t chosen = 0, ties = 0, left = count, rejected = count;
    const uint32_t near_limit =
        bulk->places - (work->far_count != 0 ? bulk->places / LINKS_FAR_SHARE : 0);

    for (uint32_t seen = 0; seen < pool && left > 0 && chosen < bulk->places;) {
        const uint64_t key = keys[0];
        const uint32_t candidate = graph_key_row(key, member);
        keys[0] = keys[--left];
        links_sift(keys, left, 0);
        ties = key >> 32 == last >> 32 ? ties + 1 : 0;
        last = key;
        if (2 * ties >= pool) {
            continue;
        }
        seen++;
        if (chosen < near_limit && !links_is_covered(bulk, work, chosen, key, candidate, 1)) {
            chosen = links_take(bulk, work, chosen, candidate);
        } else {
            keys[--rejected] = key;
        }
    }
    for (uint32_t i = 0; i < work->far_count && chosen < bulk->places; i++) {
        const uint64_t key = work->far_keys[i];
        const uint32_t candidate = graph_key_row(key, member);
        if (!links_is_covered(bulk, work, chosen, key, candidate, 1)) {
            chosen = links_take(bulk, work, chosen, candidate);
        }
    }
    while (rejected < count && chosen < bulk->places) {
        const uint64_t key = keys[--count];
        const uint32_t candidate = graph_key_row(key, member);
        if (!links_is_covered(bulk, work, chosen, key, candidate, LINKS_ALPHA_SQUARE)) {
            chosen = links_take(bulk, work, chosen, candidate);
        }
    }
    for (uint32_t i = 0; i < bulk->places; i++) {
        graph_slot_store(&list[i], i < chosen ? work->chosen[i] : member);
    }
}

/* Refining */

static void links_refine_member(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    struct links_parts parts;
    uint32_t count;

    links_find_begin(work, member);
    links_find_list(bulk, work, member);
    parts.own = work->found_count;
    parts.far = bulk->is_finished ? 0 : parts.own;
    links_find_above(bulk, work, member);
    parts.kept = work->found_count;
    for (uint32_t i = 0; i < parts.own && i < BULK_EXPAND; i++) {
        prefetch_bytes(bulk_list(bulk, work->found[i]), bulk->places * sizeof(uint32_t));
    }
    for (uint32_t i = 0; i < parts.own && i < BULK_EXPAND; i++) {
        links_find_list(bulk, work, work->found[i]);
    }
    count = links_measure(bulk, work, member, parts);
    links_choose(bulk, work, member, count, LINKS_POOL);
}

/* In a level that is one leaf every other member is a candidate. */
static void links_meet_all(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    links_find_begin(work, member);
    for (uint32_t other = 0; other < bulk->count; other++) {
        links_find(bulk, work, bulk_member(bulk, other));
    }
    links_choose(bulk, work, member, links_measure(bulk, work, member, (struct links_parts){0}),
                 2 * bulk->count);
}

static int links_refine_step(void *context, struct bulk_work *work, uint32_t index)
{
    const struct bulk *bulk = context;
    const uint32_t last = bulk_step_end(bulk, index);

    for (uint32_t i = index * BULK_GRAIN; i < last; i++) {
        const uint32_t member = bulk_member(bulk, i);
        if (bulk->count <= BULK_LEAF) {
            links_meet_all(bulk, work, member);
        } else {
            links_refine_member(bulk, work, member);
        }
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int links_refine(struct bulk *bulk)
{
    return bulk_run(bulk, bulk_steps(bulk->count), bulk->count, links_refine_step, bulk);
}

/* Accepting: offers of one step are counted first and then written, each member's side by side. */

struct links_offers {
    struct bulk *bulk;
    uint32_t *members; /* NULL: they are counted */
    size_t *starts;    /* in members, by the row that they are made to */
    _Atomic uint32_t
        *counts; /* by the row that they are made to; relaxed: a place each, and the end
                  * of a step orders what was written there before the next one reads */
};

static int links_has(const struct bulk *bulk, uint32_t of, uint32_t member)
{
    const uint32_t *list = bulk_list(bulk, of);

    for (uint32_t i = 0; i < bulk->places && list[i] != of; i++) {
        if (list[i] == member) {
            return 1;
        }
    }
    return 0;
}

static void links_offer_member(const struct links_offers *offers, uint32_t member)
{
    const struct bulk *bulk = offers->bulk;
    const uint32_t *list = bulk_list(bulk, member);

    for (uint32_t i = 0; i < bulk->places && list[i] != member; i++) {
        const uint32_t to = list[i];
        uint32_t place;
        if (links_has(bulk, to, member)) {
            continue;
        }
        place = atomic_fetch_add_explicit(&offers->counts[to], 1, memory_order_relaxed);
        if (offers->members != NULL && place < BULK_OFFERS) {
            offers->members[offers->starts[to] + place] = member;
        }
    }
}

static int links_offer_step(void *context, struct bulk_work *work, uint32_t index)
{
    const struct links_offers *offers = context;
    const struct bulk *bulk = offers->bulk;
    const uint32_t last = bulk_step_end(bulk, index);

    (void)work;
    for (uint32_t i = index * BULK_GRAIN; i < last; i++) {
        const uint32_t member = bulk_member(bulk, i);
        if (i + 1 < last) {
            const uint32_t next = bulk_member(bulk, i + 1);
            const uint32_t *list = bulk_list(bulk, next);
            for (uint32_t j = 0; j < bulk->places && list[j] != next; j++) {
                prefetch_bytes(bulk_list(bulk, list[j]), bulk->places * sizeof *list);
            }
        }
        links_offer_member(offers, member);
    }
    return OMENDB_OK;
}

static int links_accept_step(void *context, struct bulk_work *work, uint32_t index)
{
    const struct links_offers *offers = context;
    const struct bulk *bulk = offers->bulk;
    const uint32_t last = bulk_step_end(bulk, index);

    for (uint32_t i = index * BULK_GRAIN; i < last; i++) {
        const uint32_t member = bulk_member(bulk, i);
        const size_t first = offers->starts[member], end = offers->starts[member + 1];
        struct links_parts parts;
        if (first == end) {
            continue;
        }
        links_find_begin(work, member);
        links_find_list(bulk, work, member);
        parts = (struct links_parts){.kept = work->found_count};
        for (size_t at = first; at < end; at++) {
            links_find(bulk, work, offers->members[at]);
        }
        links_choose(bulk, work, member, links_measure(bulk, work, member, parts),
                     2 * work->found_count);
    }
    return OMENDB_OK;
}

/* Where the offers to each member begin; counts start again. Returns how many there are. */
static size_t links_start_offers(const struct links_offers *offers)
{
    const uint32_t rows = offers->bulk->view.count;
    size_t total = 0;

    for (uint32_t member = 0; member < rows; member++) {
        const uint32_t count = atomic_load_explicit(&offers->counts[member], memory_order_relaxed);
        offers->starts[member] = total;
        total += count < BULK_OFFERS ? count : BULK_OFFERS;
        atomic_store_explicit(&offers->counts[member], 0, memory_order_relaxed);
    }
    offers->starts[rows] = total;
    return total;
}

OMENDB_INTERNAL int links_accept(struct bulk *bulk)
{
    const uint32_t steps = bulk_steps(bulk->count);
    const size_t rows = bulk->view.count;
    struct links_offers offers = {.bulk = bulk};
    size_t total = 0;
    int code = OMENDB_NOMEM;

    offers.counts = bulk_array(bulk, rows, sizeof *offers.counts);
    offers.starts = bulk_array(bulk, rows + 1, sizeof *offers.starts);
    if (offers.counts != NULL && offers.starts != NULL) {
        code = bulk_run(bulk, steps, bulk->count, links_offer_step, &offers);
    }
    if (code == OMENDB_OK) {
        total = links_start_offers(&offers);
        offers.members = bulk_array(bulk, total, sizeof *offers.members);
        code = offers.members != NULL
                   ? bulk_run(bulk, steps, bulk->count, links_offer_step, &offers)
                   : OMENDB_NOMEM;
    }
    if (code == OMENDB_OK) {
        code = bulk_run(bulk, steps, bulk->count, links_accept_step, &offers);
    }
    bulk_array_free(bulk, offers.members, total, sizeof *offers.members);
    bulk_array_free(bulk, offers.starts, rows + 1, sizeof *offers.starts);
    bulk_array_free(bulk, offers.counts, rows, sizeof *offers.counts);
    return code;
}

#undef LINKS_POOL
#undef LINKS_FAR_SHARE
#undef LINKS_ALPHA
#undef LINKS_ALPHA_SQUARE
#undef LINKS_GROUP
