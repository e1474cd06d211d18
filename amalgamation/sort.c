/* sort.c: introsort (Musser 1997): quicksort with the median of three, a heap once the recursion is
 * deeper than 2 log2(n), insertion for the last few.
 *
 * Rejected: qsort of the C library. That of glibc takes memory for large arrays, out of reach of
 * the allocator hooks and the limit. */
#include "sort.h"

#include <assert.h>
#include <string.h>

#define SORT_FEW 16

struct sort {
    size_t size;
    int (*compare)(const void *left, const void *right);
};

static void sort_swap(const struct sort *sort, char *a, char *b)
{
    char kept[SORT_MAX_SIZE];
    memcpy(kept, a, sort->size);
    memmove(a, b, sort->size);
    memcpy(b, kept, sort->size);
}

static void sort_insert(const struct sort *sort, char *items, size_t count)
{
    const size_t size = sort->size;
    _Alignas(max_align_t) char moved[SORT_MAX_SIZE]; /* compared as an item is */
    for (size_t i = 1; i < count; i++) {
        size_t at = i;
        memcpy(moved, items + i * size, size);
        for (; at > 0 && sort->compare(items + (at - 1) * size, moved) > 0; at--)
            memcpy(items + at * size, items + (at - 1) * size, size);
        memcpy(items + at * size, moved, size);
    }
}

/* Lets the item at `at` sink in a heap with the largest on top. */
static void sort_sink(const struct sort *sort, char *items, size_t at, size_t count)
{
    const size_t size = sort->size;
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count &&
            sort->compare(items + child * size, items + (child + 1) * size) < 0)
            child++;
        if (sort->compare(items + at * size, items + child * size) >= 0)
            return;
        sort_swap(sort, items + at * size, items + child * size);
    }
}

static void sort_heap(const struct sort *sort, char *items, size_t count)
{
    for (size_t i = count / 2; i-- > 0;)
        sort_sink(sort, items, i, count);
    for (size_t i = count; i-- > 1;) {
        sort_swap(sort, items, items + i * sort->size);
        sort_sink(sort, items, 0, i);
    }
}

/* Moves the median of the first, the middle and the last item to the front. */
static void sort_choose_pivot(const struct sort *sort, char *items, size_t count)
{
    char *first = items, *middle = items + count / 2 * sort->size;
    char *last = items + (count - 1) * sort->size;
    if (sort->compare(middle, last) > 0)
        sort_swap(sort, middle, last);
    if (sort->compare(first, last) > 0)
        sort_swap(sort, first, last);
    if (sort->compare(first, middle) < 0)
        sort_swap(sort, first, middle);
}

/* Hoare's partition around the first item: returns where it ends up. Both scans stop at items equal
 * to it, so that many equal ones are split evenly. */
static size_t sort_partition(const struct sort *sort, char *items, size_t count)
{
    const size_t size = sort->size;
    size_t low = 0, high = count;
    sort_choose_pivot(sort, items, count);
    for (;;) {
        while (++low < count && sort->compare(items + low * size, items) < 0)
            ;
        while (sort->compare(items + --high * size, items) > 0)
            ;
        if (low >= high)
            break;
        sort_swap(sort, items + low * size, items + high * size);
    }
    sort_swap(sort, items, items + high * size);
    return high;
}

/* The larger side is left to the loop, so the recursion is never deeper than log2(n). */
static void sort_range(const struct sort *sort, char *items, size_t count, unsigned depth)
{
    while (count > SORT_FEW) {
        if (depth == 0) {
            sort_heap(sort, items, count);
            return;
        }
        depth--;
        const size_t middle = sort_partition(sort, items, count), after = count - middle - 1;
        char *upper = items + (middle + 1) * sort->size;
        if (middle < after) {
            sort_range(sort, items, middle, depth);
            items = upper;
            count = after;
        } else {
            sort_range(sort, upper, after, depth);
            count = middle;
        }
    }
    sort_insert(sort, items, count);
}

OMENDB_INTERNAL void sort_array(void *items, size_t count, size_t size,
                                int (*compare)(const void *left, const void *right))
{
    const struct sort sort = {size, compare};
    unsigned depth = 0;
    assert(size <= SORT_MAX_SIZE);
    for (size_t left = count; left > 1; left /= 2)
        depth += 2;
    sort_range(&sort, items, count, depth);
}

OMENDB_INTERNAL int sort_compare_numbers(const void *left, const void *right)
{
    const uint64_t *a = left, *b = right;
    return (*a > *b) - (*a < *b);
}

#undef SORT_FEW
