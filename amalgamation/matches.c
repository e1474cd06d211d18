/* matches.c: remembers the answers of a predicate; see matches.h. */
#include "matches.h"

#include <string.h>

#define MATCHES_TOUCHED(words) ((words) / 8 + 1)

static void matches_clear(struct matches *matches)
{
    if (matches->touched_count < MATCHES_TOUCHED(matches->word_count)) {
        for (size_t i = 0; i < matches->touched_count; i++)
            matches->asked[matches->touched[i]] = matches->chosen[matches->touched[i]] = 0;
    } else {
        memset(matches->asked, 0, matches->word_count * sizeof *matches->asked);
        memset(matches->chosen, 0, matches->word_count * sizeof *matches->chosen);
    }
    matches->touched_count = 0;
    matches->asked_rows = matches->chosen_rows = 0;
    matches->batch = 0;
    matches->complete = 0;
}

OMENDB_INTERNAL void matches_destroy(struct matches *matches)
{
    const size_t bytes = matches->word_count * sizeof(uint64_t);
    memory_free(matches->memory, matches->asked, bytes);
    memory_free(matches->memory, matches->chosen, bytes);
    memory_free(matches->memory, matches->touched,
                MATCHES_TOUCHED(matches->word_count) * sizeof *matches->touched);
    *matches = (struct matches){.memory = matches->memory};
}

OMENDB_INTERNAL int matches_begin(struct matches *matches, uint32_t rows)
{
    const size_t needed = (size_t)rows / 64 + 1;
    size_t words = matches->word_count + matches->word_count / 2;
    if (needed <= matches->word_count) {
        matches_clear(matches);
        return OMENDB_OK;
    }
    words = words < needed ? needed : words;
    matches_destroy(matches);
    matches->word_count = words;
    matches->asked = memory_zalloc(matches->memory, words * sizeof *matches->asked);
    matches->chosen = memory_zalloc(matches->memory, words * sizeof *matches->chosen);
    matches->touched = memory_alloc(matches->memory, MATCHES_TOUCHED(words) * sizeof(uint32_t));
    if (matches->asked != NULL && matches->chosen != NULL && matches->touched != NULL)
        return OMENDB_OK;
    matches_destroy(matches);
    return OMENDB_NOMEM;
}

OMENDB_INTERNAL void matches_belong(struct matches *matches, uint64_t batch, const void *source,
                                    uint32_t rows)
{
    matches->batch = batch;
    matches->source = source;
    matches->rows = rows;
}

OMENDB_INTERNAL int matches_continue(const struct matches *matches, uint64_t batch,
                                     const void *source, uint32_t rows)
{
    return batch != 0 && matches->batch == batch && matches->source == source &&
           matches->rows == rows;
}

static inline uint32_t matches_count_bits(uint64_t word)
{
    uint32_t count = 0;
    for (; word != 0; word &= word - 1)
        count++;
    return count;
}

OMENDB_INTERNAL void matches_note(struct matches *matches, uint32_t word, uint64_t asked,
                                  uint64_t chosen)
{
    if (matches->asked[word] == 0 && matches->touched_count < MATCHES_TOUCHED(matches->word_count))
        matches->touched[matches->touched_count++] = word;
    matches->asked[word] |= asked;
    matches->chosen[word] |= chosen;
    matches->asked_rows += matches_count_bits(asked);
    matches->chosen_rows += matches_count_bits(chosen);
}

#undef MATCHES_TOUCHED
