/* hash.c: see hash.h. */
#include "hash.h"

#include "platform.h"

#include <string.h>

#define HASH_WORD_ROUNDS 1
#define HASH_END_ROUNDS  3

struct hash_state {
    uint64_t word[4];
};

static inline uint64_t hash_rotate(uint64_t value, int bits)
{
    return value << bits | value >> (64 - bits);
}

static inline void hash_mix(struct hash_state *state, int rounds)
{
    uint64_t a = state->word[0], b = state->word[1], c = state->word[2], d = state->word[3];
    for (int i = 0; i < rounds; i++) {
        a += b;
        c += d;
        b = hash_rotate(b, 13) ^ a;
        d = hash_rotate(d, 16) ^ c;
        a = hash_rotate(a, 32) + d;
        c += b;
        d = hash_rotate(d, 21) ^ a;
        b = hash_rotate(b, 17) ^ c;
        c = hash_rotate(c, 32);
    }
    *state = (struct hash_state){{a, b, c, d}};
}

static inline void hash_begin(struct hash_state *state, const struct hash_seed *seed)
{
    state->word[0] = seed->half[0] ^ UINT64_C(0x736f6d6570736575);
    state->word[1] = seed->half[1] ^ UINT64_C(0x646f72616e646f6d);
    state->word[2] = seed->half[0] ^ UINT64_C(0x6c7967656e657261);
    state->word[3] = seed->half[1] ^ UINT64_C(0x7465646279746573);
}

static inline void hash_add(struct hash_state *state, uint64_t eight, int rounds)
{
    state->word[3] ^= eight;
    hash_mix(state, rounds);
    state->word[0] ^= eight;
}

static inline uint64_t hash_end(struct hash_state *state, int rounds)
{
    state->word[2] ^= 0xff;
    hash_mix(state, rounds);
    return state->word[0] ^ state->word[1] ^ state->word[2] ^ state->word[3];
}

/* The last one to seven bytes, and the number of all. */
static inline uint64_t hash_last(const uint8_t *bytes, size_t left, size_t size)
{
    uint64_t last = (uint64_t)size << 56;
    uint32_t four;
    if (left >= sizeof four) {
        memcpy(&four, bytes, sizeof four);
        last |= four;
    }
    for (size_t i = left & sizeof four; i < left; i++)
        last |= (uint64_t)bytes[i] << (8 * i);
    return last;
}

static inline uint64_t hash_all(const struct hash_seed *seed, const uint8_t *bytes, size_t size,
                                int word_rounds, int end_rounds)
{
    struct hash_state state;
    uint64_t eight;
    size_t left = size;
    hash_begin(&state, seed);
    for (; left >= sizeof eight; bytes += sizeof eight, left -= sizeof eight) {
        memcpy(&eight, bytes, sizeof eight);
        hash_add(&state, eight, word_rounds);
    }
    hash_add(&state, hash_last(bytes, left, size), word_rounds);
    return hash_end(&state, end_rounds);
}

OMENDB_INTERNAL uint64_t hash_siphash(const struct hash_seed *seed, const uint8_t *bytes,
                                      size_t size, int word_rounds, int end_rounds)
{
    return hash_all(seed, bytes, size, word_rounds, end_rounds);
}

OMENDB_INTERNAL uint64_t hash_bytes(const struct hash_seed *seed, const uint8_t *bytes, size_t size)
{
    return hash_all(seed, bytes, size, HASH_WORD_ROUNDS, HASH_END_ROUNDS);
}

OMENDB_INTERNAL uint64_t hash_number(const struct hash_seed *seed, uint64_t number)
{
    uint8_t bytes[sizeof number];
    memcpy(bytes, &number, sizeof number);
    return hash_all(seed, bytes, sizeof bytes, HASH_WORD_ROUNDS, HASH_END_ROUNDS);
}

OMENDB_INTERNAL void hash_make_seed(struct hash_seed *seed)
{
    platform_random(seed, sizeof *seed);
}

#undef HASH_WORD_ROUNDS
#undef HASH_END_ROUNDS
