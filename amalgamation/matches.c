/* matches.c: remembers the answers of a predicate; see matches.h. */
#include "matches.h"

#include <string.h>

#define MATCHES_TOUCHED(words) ((words) / 8 + 1)

static void matches_clear(struct matches *matches)
{
    if (matches->touched_count < MATCHES_TOUCHED(matches->word_count)) {
        for (size_t i = 0; i < matches->touched_count; i++)
            matches->words[matches->touched[i]] = 0;
    } else {
        memset(matches->words, 0, matches->word_count * sizeof *matches->words);
    }
    matches->touched_count = 0;
    matches->asked = matches->matched = 0;
}

OMENDB_INTERNAL void matches_destroy(struct matches *matches)
{
    memory_free(matches->memory, matches->words, matches->word_count * sizeof *matches->words);
    memory_free(matches->memory, matches->touched,
                MATCHES_TOUCHED(matches->word_count) * sizeof *matches->touched);
    matches->words = NULL;
    matches->touched = NULL;
    matches->word_count = matches->touched_count = 0;
}

OMENDB_INTERNAL int matches_begin(struct matches *matches, uint32_t rows)
{
    const size_t needed = (size_t)rows / 32 + 1;
    size_t words = matches->word_count + matches->word_count / 2;
    if (needed <= matches->word_count) {
        matches_clear(matches);
        return OMENDB_OK;
    }
    words = words < needed ? needed : words;
    matches_destroy(matches);
    matches->words = memory_zalloc(matches->memory, memory_multiply(words, sizeof(uint64_t)));
    matches->touched = memory_array(matches->memory, MATCHES_TOUCHED(words), sizeof(uint32_t));
    matches->word_count = words;
    matches->asked = matches->matched = 0;
    if (matches->words != NULL && matches->touched != NULL)
        return OMENDB_OK;
    matches_destroy(matches);
    return OMENDB_NOMEM;
}

OMENDB_INTERNAL void matches_note(struct matches *matches, uint32_t row, int answer)
{
    uint64_t *word = &matches->words[row / 32];
    if (*word == 0 && matches->touched_count < MATCHES_TOUCHED(matches->word_count))
        matches->touched[matches->touched_count++] = row / 32;
    *word |= (UINT64_C(1) | (uint64_t)(answer != 0) << 32) << (row % 32);
    matches->asked++;
    matches->matched += answer != 0;
}

#undef MATCHES_TOUCHED
