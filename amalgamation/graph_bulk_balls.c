/* graph_bulk_balls.c: bulk building finds the nearest neighbours of all members by "ball carving",
 * as in PiPNN (arXiv 2602.21247).
 *
 * Splitting puts the members into leaves of at most BULK_LEAF, each into those of its BALLS_FAN
 * nearest leaders (random members); cells that are too large are split again, among leaders of
 * their own. In a leaf all pairs are compared, both ways; a member keeps the nearest 2M, in its
 * base list, and the nearest that has upper levels. Both are repeated with other leaders
 * BULK_REPLICAS times.
 *
 * Invariants. Leaves have a bounded size, splitting a bounded number of rounds, after which cells
 * are cut up: no data makes it quadratic. Ties go by the XOR of numbers (graph_internal.h), in
 * splitting, too: copies of one vector fall apart into balls of numbers. At most three quarters of
 * a list are at one distance, so that a row beside a mass of copies meets others as well. While
 * leaves are compared, a list's distances are kept as ranks, the upper 16 bits of their keys:
 * enough to tell which to measure exactly later. Lists, ranks and the nearest with upper levels are
 * written under the member's stripe. */
#include "graph_bulk_internal.h"

#include "error.h"

#include <assert.h>

#define BALLS_CELL       400   /* members for each leader */
#define BALLS_LEADERS    256   /* of one cell at most */
#define BALLS_FAN        3     /* leaves of a member in one splitting */
#define BALLS_ROUNDS     6     /* of one splitting */
#define BALLS_TILE_BYTES 65536 /* a part of the second cache */

_Static_assert(BULK_LEAF / BALLS_CELL + 1 >= BALLS_FAN, "a cell has a leader for each choice");
_Static_assert(BALLS_LEADERS <= UINT16_MAX, "choices are 16 bits");
_Static_assert(BULK_TILE % BULK_MASK_GROUP == 0, "masks are computed in groups");

struct balls_cell {
    uint32_t first; /* in entries */
    uint32_t count;
    uint32_t leader;  /* its first one in leaders */
    uint32_t leaders; /* 0: a leaf */
    uint32_t step;    /* its first one of the round */
};

struct balls {
    struct bulk *bulk;
    uint64_t random;
    uint16_t *ranks;       /* of what the lists hold */
    uint16_t *upper_ranks; /* of bulk->uppers */

    uint32_t *entries; /* members by cell; of the first round: not there yet, each one is its own */
    uint32_t *sorted;
    uint16_t *choices;
    uint32_t entry_count;
    uint32_t fan;
    int is_first;
    struct balls_cell *cells;
    uint32_t cell_count;
    size_t cell_room;
    uint32_t *leaders;
    uint32_t leader_count;
};

/* Vectors that stay in the cache while a member after another is compared with them. */
static uint32_t balls_tile(const struct bulk *bulk)
{
    const size_t tile = BALLS_TILE_BYTES / (bulk->view.vectors.stride + 1) / BULK_MASK_GROUP;

    return tile < 1                             ? BULK_MASK_GROUP
           : tile > BULK_TILE / BULK_MASK_GROUP ? BULK_TILE
                                                : (uint32_t)tile * BULK_MASK_GROUP;
}

/* Splitting */

/* The generator of SplitMix64. */
static uint64_t balls_random(struct balls *balls)
{
    uint64_t hash = balls->random += UINT64_C(0x9e3779b97f4a7c15);

    hash = (hash ^ (hash >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ (hash >> 27)) * UINT64_C(0x94d049bb133111eb);
    return hash ^ (hash >> 31);
}

static uint32_t balls_entry(const struct balls *balls, uint32_t at)
{
    return balls->is_first ? graph_unheld_row(&balls->bulk->terms->held, at) : balls->entries[at];
}

/* One leader out of each of equal runs of the cell. */
static void balls_pick_leaders(struct balls *balls, const struct balls_cell *cell)
{
    for (uint32_t i = 0; i < cell->leaders; i++) {
        const uint64_t from = (uint64_t)cell->count * i / cell->leaders;
        const uint64_t to = (uint64_t)cell->count * (i + 1) / cell->leaders;
        const uint32_t at = cell->first + (uint32_t)(from + balls_random(balls) % (to - from));
        balls->leaders[cell->leader + i] = balls_entry(balls, at);
    }
}

/* The nearest leaders of one member so far. Those of a member whose distances are no numbers are
 * the first ones. */
struct balls_leaders {
    uint64_t keys[BALLS_FAN];
    uint16_t leaders[BALLS_FAN];
};

static void balls_offer_leader(const struct balls *balls, struct balls_leaders *nearest,
                               uint64_t key, uint32_t leader)
{
    uint32_t at = balls->fan - 1;

    if (nearest->keys[at] <= key) {
        return;
    }
    for (; at > 0 && nearest->keys[at - 1] > key; at--) {
        nearest->keys[at] = nearest->keys[at - 1];
        nearest->leaders[at] = nearest->leaders[at - 1];
    }
    nearest->keys[at] = key;
    nearest->leaders[at] = (uint16_t)leader;
}

/* Compares a member with `count` leaders of the cell from `first` on, whose vectors are in
 * work->vectors. */
static void balls_compare_leaders(const struct balls *balls, struct bulk_work *work,
                                  const struct balls_cell *cell, uint32_t first, uint32_t count,
                                  uint32_t member, struct balls_leaders *nearest)
{
    const struct bulk *bulk = balls->bulk;
    const uint32_t *leaders = balls->leaders + cell->leader + first;
    const float *distances = work->distances;

    bulk_distances(bulk, member, leaders, work->vectors, count, work->distances);
    for (uint32_t i = 0; i < count; i++) {
        const float farthest =
            graph_key_distance(nearest->keys[balls->fan - 1]); /* NaN: none yet */
        if (!isnan(distances[i]) && !(distances[i] > farthest)) {
            balls_offer_leader(balls, nearest, graph_key(distances[i], leaders[i] ^ member),
                               first + i);
        }
    }
}

static const struct balls_cell *balls_cell_of_step(const struct balls *balls, uint32_t step)
{
    uint32_t low = 0, high = balls->cell_count;

    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (balls->cells[middle].step <= step) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return &balls->cells[low];
}

/* Chooses the leaders of the members of one step. */
static int balls_split_step(void *context, struct bulk_work *work, uint32_t index)
{
    const struct balls *balls = context;
    const struct bulk *bulk = balls->bulk;
    const struct balls_cell *cell = balls_cell_of_step(balls, index);
    const uint32_t from = (index - cell->step) * BULK_GRAIN, tile = balls_tile(bulk);
    const uint32_t rows = cell->count - from < BULK_GRAIN ? cell->count - from : BULK_GRAIN;
    uint16_t *choices = balls->choices + ((size_t)cell->first + from) * balls->fan;
    struct balls_leaders nearest[BULK_GRAIN];

    for (uint32_t i = 0; i < rows * BALLS_FAN; i++) {
        nearest[i / BALLS_FAN].keys[i % BALLS_FAN] = GRAPH_KEY_NONE;
        nearest[i / BALLS_FAN].leaders[i % BALLS_FAN] = (uint16_t)(i % BALLS_FAN);
    }
    for (uint32_t first = 0; first < cell->leaders; first += tile) {
        const uint32_t count = cell->leaders - first < tile ? cell->leaders - first : tile;
        for (uint32_t i = 0; i < count; i++) {
            work->vectors[i] = bulk_vector(bulk, balls->leaders[cell->leader + first + i]);
        }
        for (uint32_t i = 0; i < rows; i++) {
            const uint32_t member = balls_entry(balls, cell->first + from + i);
            balls_compare_leaders(balls, work, cell, first, count, member, &nearest[i]);
        }
    }
    for (uint32_t i = 0; i < rows; i++) {
        memcpy(choices + i * balls->fan, nearest[i].leaders, balls->fan * sizeof *choices);
    }
    return OMENDB_OK;
}

/* Sorts the cell's entries by their choices and appends the cells that they make. */
static void balls_sort_cell(struct balls *balls, const struct balls_cell *cell, uint32_t *starts,
                            struct balls_cell *cells, uint32_t *count)
{
    const uint32_t choice_count = cell->count * balls->fan;
    const uint16_t *choices = balls->choices + (size_t)cell->first * balls->fan;
    uint32_t first = cell->first * balls->fan;

    memset(starts, 0, cell->leaders * sizeof *starts);
    for (uint32_t i = 0; i < choice_count; i++) {
        starts[choices[i]]++;
    }
    for (uint32_t i = 0; i < cell->leaders; i++) {
        const uint32_t length = starts[i];
        starts[i] = first;
        if (length != 0) {
            cells[(*count)++] = (struct balls_cell){.first = first, .count = length};
        }
        first += length;
    }
    for (uint32_t i = 0; i < choice_count; i++) {
        balls->sorted[starts[choices[i]]++] = balls_entry(balls, cell->first + i / balls->fan);
    }
}

/* Replaces the cells by those that their leaders make, the others staying as they are. */
static void balls_sort_cells(struct balls *balls, uint32_t *starts, struct balls_cell *cells,
                             uint32_t *count)
{
    for (uint32_t i = 0; i < balls->cell_count; i++) {
        const struct balls_cell *cell = &balls->cells[i];
        if (cell->leaders == 0) {
            cells[(*count)++] = *cell;
            continue;
        }
        balls_sort_cell(balls, cell, starts, cells, count);
        if (!balls->is_first) {
            memcpy(balls->entries + cell->first, balls->sorted + cell->first,
                   cell->count * sizeof *balls->sorted);
        }
    }
    if (balls->is_first) {
        uint32_t *entries = balls->sorted;
        balls->sorted = balls->entries;
        balls->entries = entries;
    }
}

/* Plans a round: leaders and steps of the cells that are too large. */
static uint32_t balls_plan_round(struct balls *balls)
{
    uint32_t steps = 0;

    balls->fan = balls->is_first ? BALLS_FAN : 1;
    balls->leader_count = 0;
    for (uint32_t i = 0; i < balls->cell_count; i++) {
        struct balls_cell *cell = &balls->cells[i];
        const uint32_t leaders = cell->count / BALLS_CELL + 1;
        cell->leaders = cell->count <= BULK_LEAF  ? 0
                        : leaders < BALLS_LEADERS ? leaders
                                                  : BALLS_LEADERS;
        cell->leader = balls->leader_count;
        cell->step = steps;
        balls->leader_count += cell->leaders;
        steps += cell->leaders != 0 ? bulk_steps(cell->count) : 0;
    }
    return steps;
}

static void balls_replace_cells(struct balls *balls, struct balls_cell *cells, size_t room,
                                uint32_t count)
{
    memory_free(balls->bulk->memory, balls->cells, balls->cell_room * sizeof *balls->cells);
    balls->cells = cells;
    balls->cell_room = room;
    balls->cell_count = count;
}

/* One round, for which balls_plan_round found something to do. */
static int balls_split_round(struct balls *balls, uint32_t steps)
{
    struct bulk *bulk = balls->bulk;
    struct memory *memory = bulk->memory;
    const size_t leaders = balls->leader_count, room = leaders + balls->cell_count;
    uint32_t *starts = memory_array(memory, leaders, sizeof *starts);
    struct balls_cell *cells = memory_array(memory, room, sizeof *cells);
    uint32_t count = 0;
    int code = OMENDB_NOMEM;

    balls->leaders = memory_array(memory, leaders, sizeof *balls->leaders);
    if (starts != NULL && cells != NULL && balls->leaders != NULL) {
        for (uint32_t i = 0; i < balls->cell_count; i++) {
            balls_pick_leaders(balls, &balls->cells[i]);
        }
        code = bulk_run(bulk, steps, balls->is_first ? bulk->count : 0, balls_split_step, balls);
    }
    if (code == OMENDB_OK) {
        balls_sort_cells(balls, starts, cells, &count);
        balls_replace_cells(balls, cells, room, count);
    } else {
        memory_free(memory, cells, room * sizeof *cells);
    }
    memory_free(memory, balls->leaders, leaders * sizeof *balls->leaders);
    memory_free(memory, starts, leaders * sizeof *starts);
    balls->leaders = NULL;
    return code;
}

/* Cuts up what no leader could split, by a bounded number of rounds. */
static int balls_cut_cells(struct balls *balls)
{
    uint32_t room = 0, count = 0;
    struct balls_cell *cells;

    for (uint32_t i = 0; i < balls->cell_count; i++) {
        room += balls->cells[i].count / BULK_LEAF + 1;
    }
    cells = memory_array(balls->bulk->memory, room, sizeof *cells);
    if (cells == NULL) {
        return OMENDB_NOMEM;
    }
    for (uint32_t i = 0; i < balls->cell_count; i++) {
        const struct balls_cell *cell = &balls->cells[i];
        const uint32_t parts = cell->count / BULK_LEAF + (cell->count % BULK_LEAF != 0);
        for (uint32_t part = 0; part < parts; part++) {
            const uint32_t from = (uint32_t)((uint64_t)cell->count * part / parts);
            const uint32_t to = (uint32_t)((uint64_t)cell->count * (part + 1) / parts);
            cells[count++] = (struct balls_cell){.first = cell->first + from, .count = to - from};
        }
    }
    balls_replace_cells(balls, cells, room, count);
    return OMENDB_OK;
}

static int balls_split(struct balls *balls)
{
    struct balls_cell *all = memory_zalloc(balls->bulk->memory, sizeof *all);
    uint32_t steps = 1;
    int code = OMENDB_OK;

    if (all == NULL) {
        return OMENDB_NOMEM;
    }
    all->count = balls->bulk->count;
    balls_replace_cells(balls, all, 1, 1);
    balls->is_first = 1;
    for (uint32_t round = 0; round < BALLS_ROUNDS && code == OMENDB_OK; round++) {
        steps = balls_plan_round(balls);
        if (steps == 0) {
            break;
        }
        code = balls_split_round(balls, steps);
        balls->is_first = 0;
    }
    return code == OMENDB_OK && steps != 0 ? balls_cut_cells(balls) : code;
}

/* Leaves */

/* The greatest distance of a rank. */
static float balls_rank_limit(uint32_t rank)
{
    const float limit = graph_key_distance(((uint64_t)rank << 16 | 0xffff) << 32);

    return limit < INFINITY ? limit : INFINITY; /* of the infinite rank it is no number */
}

/* Where in a full run of equal distances a key that belongs at `at` pushes out another: the end of
 * the run, `length` if the run is not full yet, or GRAPH_NO_ROW if it is the one that is too much.
 */
static uint32_t balls_end_of_ties(const uint64_t *list, uint32_t length, uint32_t at, uint64_t key,
                                  uint32_t limit)
{
    uint32_t first = at, last = at;

    while (first > 0 && list[first - 1] >> 32 == key >> 32) {
        first--;
    }
    while (last < length && list[last] >> 32 == key >> 32) {
        last++;
    }
    return last - first < limit ? length : last > at ? last - 1 : GRAPH_NO_ROW;
}

/* Puts a key into the list of the leaf's entry `place`. */
static void balls_leaf_offer(const struct bulk *bulk, struct bulk_work *work, uint32_t place,
                             uint64_t key)
{
    uint64_t *list = work->lists + (size_t)place * bulk->places;
    uint32_t length = work->lengths[place], at = length, end;

    while (at > 0 && list[at - 1] > key) {
        at--;
    }
    if (at == bulk->places) {
        return;
    }
    end = balls_end_of_ties(list, length, at, key, bulk->places / 4 * 3);
    if (end == GRAPH_NO_ROW) {
        return;
    }
    if (end == length) {
        work->lengths[place] = length += length < bulk->places;
        end = length - 1;
    }
    memmove(list + at + 1, list + at, (end - at) * sizeof *list);
    list[at] = key;
    if (length == bulk->places) {
        const float worst = graph_key_distance(list[length - 1]);
        work->worst[place] = worst < work->worst[place] ? worst : work->worst[place];
    }
}

/* Offers each other the entries `place` and `other`. */
static void balls_leaf_meet(const struct bulk *bulk, struct bulk_work *work,
                            const uint32_t *entries, uint32_t place, uint32_t other, float distance)
{
    const uint64_t key = graph_key(distance, entries[place] ^ entries[other]);

    if (entries[place] == entries[other]) {
        return; /* twice in one leaf: its distances to leaders were no numbers */
    }
    if (distance <= work->worst[place]) {
        balls_leaf_offer(bulk, work, place, key);
    }
    if (distance <= work->worst[other]) {
        balls_leaf_offer(bulk, work, other, key);
    }
}

/* Compares the entry `place` of a leaf with those of [first, last), at most a tile. The masks are
 * made in groups of a constant size for the compiler's vectors. */
static void balls_leaf_compare(const struct bulk *bulk, struct bulk_work *work,
                               const uint32_t *entries, uint32_t place, uint32_t first,
                               uint32_t last)
{
    const uint32_t count = last - first;
    const float *distances = work->distances, *worst = work->worst + first;
    const float own = work->worst[place];

    bulk_distances(bulk, entries[place], entries + first, work->vectors + first, count,
                   work->distances);
    for (uint32_t group = 0; group < count; group += BULK_MASK_GROUP) {
        const uint32_t end = count - group < BULK_MASK_GROUP ? count - group : BULK_MASK_GROUP;
        int32_t near[BULK_MASK_GROUP], any = 0;
        for (uint32_t i = 0; i < BULK_MASK_GROUP; i++) {
            near[i] = (distances[group + i] <= own) | (distances[group + i] <= worst[group + i]);
        }
        for (uint32_t i = 0; i < BULK_MASK_GROUP; i++) {
            any |= near[i];
        }
        for (uint32_t i = 0; any != 0 && i < end; i++) {
            if (near[i]) {
                balls_leaf_meet(bulk, work, entries, place, first + group + i,
                                distances[group + i]);
            }
        }
    }
}

/* What member's list holds at `at`, as rank << 32 | number ^ member; UINT64_MAX at its end. */
static uint64_t balls_ranked(const struct balls *balls, uint32_t member, uint32_t at)
{
    const struct bulk *bulk = balls->bulk;
    const uint32_t *list = bulk_list(bulk, member);

    if (at == bulk->places || list[at] == member) {
        return UINT64_MAX;
    }
    return (uint64_t)balls->ranks[(size_t)member * bulk->places + at] << 32 | (list[at] ^ member);
}

/* Merges what a leaf found for a member into its list. Both are ascending; what is in both has the
 * same rank and number in both, except under cosine, where rounding may differ: choosing does not
 * mind. */
static void balls_merge(const struct balls *balls, struct bulk_work *work, uint32_t member,
                        const uint64_t *found, uint32_t found_count)
{
    const struct bulk *bulk = balls->bulk;
    const uint32_t places = bulk->places;
    uint32_t count = 0, ties = 0, i = 0, j = 0;
    uint32_t *list = bulk_list(bulk, member);
    uint64_t *merged = work->keys;

    platform_mutex_lock(bulk_stripe(bulk, member));
    while (count < places) {
        const uint64_t old = balls_ranked(balls, member, i);
        const uint64_t fresh =
            j < found_count ? found[j] >> 48 << 32 | (uint32_t)found[j] >> 1 : UINT64_MAX;
        const uint64_t next = old < fresh ? old : fresh;
        if (next == UINT64_MAX) {
            break;
        }
        i += old == next;
        j += fresh == next;
        ties = count != 0 && merged[count - 1] >> 32 == next >> 32 ? ties + 1 : 0;
        if (ties < places / 4 * 3) {
            merged[count++] = next;
        }
    }
    for (i = 0; i < count; i++) {
        list[i] = (uint32_t)merged[i] ^ member;
        balls->ranks[(size_t)member * places + i] = (uint16_t)(merged[i] >> 32);
    }
    platform_mutex_unlock(bulk_stripe(bulk, member));
}

/* Keeps the nearest of the leaf's members with links above, if it is nearer than that of others. */
static void balls_meet_uppers(const struct balls *balls, struct bulk_work *work, uint32_t member)
{
    const struct bulk *bulk = balls->bulk;
    uint64_t nearest = GRAPH_KEY_NONE;

    for (uint32_t first = 0; first < work->upper_count; first += BULK_TILE) {
        const uint32_t left = work->upper_count - first;
        const uint32_t count = left < BULK_TILE ? left : BULK_TILE, *uppers = work->uppers + first;
        bulk_distances(bulk, member, uppers, work->upper_vectors + first, count, work->distances);
        for (uint32_t i = 0; i < count; i++) {
            const uint64_t key = graph_key(work->distances[i], uppers[i] ^ member);
            nearest = key < nearest && uppers[i] != member ? key : nearest;
        }
    }
    if (nearest == GRAPH_KEY_NONE) {
        return;
    }
    platform_mutex_lock(bulk_stripe(bulk, member));
    if (bulk->uppers[member] == GRAPH_NO_ROW || nearest >> 48 < balls->upper_ranks[member]) {
        bulk->uppers[member] = graph_key_row(nearest, member);
        balls->upper_ranks[member] = (uint16_t)(nearest >> 48);
    }
    platform_mutex_unlock(bulk_stripe(bulk, member));
}

/* Sets up the work for a leaf. */
static void balls_leaf_begin(const struct balls *balls, struct bulk_work *work,
                             const uint32_t *entries, uint32_t count)
{
    const struct bulk *bulk = balls->bulk;
    const uint32_t last = bulk->places - 1;

    work->upper_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t member = entries[i];
        work->lengths[i] = 0;
        work->vectors[i] = bulk_vector(bulk, member);
        if (bulk_is_upper(bulk, member)) {
            work->uppers[work->upper_count] = member;
            work->upper_vectors[work->upper_count++] = work->vectors[i];
        }
        platform_mutex_lock(bulk_stripe(bulk, member));
        work->worst[i] = bulk_list(bulk, member)[last] == member
                             ? INFINITY
                             : balls_rank_limit(balls->ranks[(size_t)member * bulk->places + last]);
        platform_mutex_unlock(bulk_stripe(bulk, member));
    }
}

/* Merges what the leaf found into the lists of its members. */
static void balls_leaf_end(const struct balls *balls, struct bulk_work *work,
                           const uint32_t *entries, uint32_t count)
{
    const struct bulk *bulk = balls->bulk;
    const size_t places = bulk->places;

    for (uint32_t i = 0; i < count; i++) {
        const uint32_t ahead = entries[i + 4 < count ? i + 4 : i];
        prefetch_bytes(bulk_list(bulk, ahead), places * sizeof(uint32_t));
        prefetch_bytes(balls->ranks + ahead * places, places * sizeof *balls->ranks);
        balls_meet_uppers(balls, work, entries[i]);
        balls_merge(balls, work, entries[i], work->lists + i * places, work->lengths[i]);
    }
}

/* Other leaves of the same members may be compared at the same time: their lists are read and
 * written under their stripes. */
static int balls_leaf_step(void *context, struct bulk_work *work, uint32_t index)
{
    const struct balls *balls = context;
    const struct balls_cell *cell = &balls->cells[index];
    const uint32_t *entries = balls->entries + cell->first;
    const uint32_t tile = balls_tile(balls->bulk);

    balls_leaf_begin(balls, work, entries, cell->count);
    for (uint32_t first = 0; first < cell->count; first += tile) {
        const uint32_t last = cell->count - first < tile ? cell->count : first + tile;
        for (uint32_t place = 0; place + 1 < last; place++) {
            balls_leaf_compare(balls->bulk, work, entries, place, place < first ? first : place + 1,
                               last);
        }
    }
    balls_leaf_end(balls, work, entries, cell->count);
    return OMENDB_OK;
}

/* The whole */

static int balls_begin(struct balls *balls)
{
    struct bulk *bulk = balls->bulk;
    const size_t entries = balls->entry_count;
    const uint32_t count = bulk->view.count;

    balls->ranks = bulk_array(bulk, memory_multiply(count, bulk->places), sizeof *balls->ranks);
    bulk->uppers = bulk_array(bulk, count, sizeof *bulk->uppers);
    balls->upper_ranks = bulk_array(bulk, count, sizeof *balls->upper_ranks);
    balls->choices = bulk_array(bulk, entries, sizeof *balls->choices);
    balls->entries = bulk_array(bulk, entries, sizeof *balls->entries);
    balls->sorted = bulk_array(bulk, entries, sizeof *balls->sorted);
    if (balls->ranks == NULL || bulk->uppers == NULL || balls->upper_ranks == NULL ||
        balls->choices == NULL || balls->entries == NULL || balls->sorted == NULL) {
        return OMENDB_NOMEM;
    }
    for (uint32_t i = 0; i < count; i++) {
        bulk->uppers[i] = GRAPH_NO_ROW;
    }
    return OMENDB_OK;
}

/* Frees what nobody needs once all leaves were compared. */
static void balls_end(struct balls *balls)
{
    const struct bulk *bulk = balls->bulk;
    const size_t entries = balls->entry_count, count = bulk->view.count;

    bulk_array_free(bulk, balls->ranks, count * bulk->places, sizeof *balls->ranks);
    bulk_array_free(bulk, balls->upper_ranks, count, sizeof *balls->upper_ranks);
    bulk_array_free(bulk, balls->choices, entries, sizeof *balls->choices);
    bulk_array_free(bulk, balls->sorted, entries, sizeof *balls->sorted);
}

/* Each member once, in the order of the leaves of the last splitting. */
static int balls_make_order(const struct balls *balls)
{
    struct bulk *bulk = balls->bulk;
    const size_t words = (size_t)bulk->view.count / 64 + 1;
    uint64_t *seen = memory_zalloc(bulk->memory, words * sizeof *seen);
    uint32_t count = 0;

    bulk->order = bulk_array(bulk, bulk->count, sizeof *bulk->order);
    if (seen != NULL && bulk->order != NULL) {
        for (uint32_t i = 0; i < balls->entry_count; i++) {
            const uint32_t member = balls->entries[i];
            if ((seen[member >> 6] >> (member & 63) & 1) == 0) {
                seen[member >> 6] |= UINT64_C(1) << (member & 63);
                bulk->order[count++] = member;
            }
        }
        assert(count == bulk->count);
    }
    memory_free(bulk->memory, seen, words * sizeof *seen);
    return count == bulk->count ? OMENDB_OK : OMENDB_NOMEM;
}

OMENDB_INTERNAL int balls_find_nearest(struct bulk *bulk)
{
    struct balls balls = {.bulk = bulk, .random = bulk->graph->config.seed};
    int code;

    if (bulk->count > UINT32_MAX / BALLS_FAN) {
        return error_set(OMENDB_NOMEM, "%u rows are too many to be linked at once", bulk->count);
    }
    balls.entry_count = bulk->count * BALLS_FAN;
    code = balls_begin(&balls);
    for (uint32_t i = 0; i < BULK_REPLICAS && code == OMENDB_OK; i++) {
        code = balls_split(&balls);
        if (code == OMENDB_OK) {
            code = bulk_run(bulk, balls.cell_count, bulk->count, balls_leaf_step, &balls);
        }
    }
    balls_end(&balls);
    if (code == OMENDB_OK) {
        code = balls_make_order(&balls);
    }
    balls_replace_cells(&balls, NULL, 0, 0);
    bulk_array_free(bulk, balls.entries, balls.entry_count, sizeof *balls.entries);
    return code;
}

#undef BALLS_CELL
#undef BALLS_LEADERS
#undef BALLS_FAN
#undef BALLS_ROUNDS
#undef BALLS_TILE_BYTES
