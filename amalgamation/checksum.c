/* checksum.c: CRC32C, reflected polynomial 0x82F63B78.
 *
 * Four ways to the same value. The CRC instruction of SSE4.2 takes 8 bytes in 3 cycles but can
 * start in each cycle, so three runs of a chunk go side by side and are joined by carry-less
 * products (Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction",
 * Intel 2011): 23 GB/s instead of 6 over blocks of 16 KiB, on one core of a Zen 3. A processor
 * without that product, and what is left over of a chunk, take one run. ARMv8 has the same
 * instruction; a table of 256 entries (0.4 GB/s) serves the few processors without either. The
 * choice is made at the first call and published as one function pointer; threads that race choose
 * the same.
 *
 * Invariant: checksum_crc32c(checksum_crc32c(0, A), B) equals the checksum of A followed by B; the
 * inversion before and after is inside the call.
 *
 * The table is written as constant expressions: a CRC is linear over XOR, so each entry is the XOR
 * of the entries of its set bits, and the source holds eight numbers that can be checked by eye.
 * Rejected: a table filled at run time (needs a guard at each call), and CRC32 or a 64-bit hash
 * (this one has the instructions, and detects every burst of up to 32 bits). */
#include "checksum.h"

#include <stdatomic.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define CHECKSUM_X86 1
#include <cpuid.h>
#include <nmmintrin.h>
#include <wmmintrin.h>
#else
#define CHECKSUM_X86 0
#endif

#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__)) &&                           \
    (defined(__linux__) || defined(__APPLE__))
#define CHECKSUM_ARM 1
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#else
#define CHECKSUM_ARM 0
#endif

/* CRC of the byte i, from those of the bytes with one bit. */
#define CHECKSUM_ENTRY(i)                                                                          \
    (((i)&1 ? 0xF26B8303u : 0) ^ ((i)&2 ? 0xE13B70F7u : 0) ^ ((i)&4 ? 0xC79A971Fu : 0) ^           \
     ((i)&8 ? 0x8AD958CFu : 0) ^ ((i)&16 ? 0x105EC76Fu : 0) ^ ((i)&32 ? 0x20BD8EDEu : 0) ^         \
     ((i)&64 ? 0x417B1DBCu : 0) ^ ((i)&128 ? 0x82F63B78u : 0))
#define CHECKSUM_ENTRIES_4(i)                                                                      \
    CHECKSUM_ENTRY(i), CHECKSUM_ENTRY((i) + 1), CHECKSUM_ENTRY((i) + 2), CHECKSUM_ENTRY((i) + 3)
#define CHECKSUM_ENTRIES_16(i)                                                                     \
    CHECKSUM_ENTRIES_4(i), CHECKSUM_ENTRIES_4((i) + 4), CHECKSUM_ENTRIES_4((i) + 8),               \
        CHECKSUM_ENTRIES_4((i) + 12)
#define CHECKSUM_ENTRIES_64(i)                                                                     \
    CHECKSUM_ENTRIES_16(i), CHECKSUM_ENTRIES_16((i) + 16), CHECKSUM_ENTRIES_16((i) + 32),          \
        CHECKSUM_ENTRIES_16((i) + 48)

static const uint32_t checksum_table[256] = {CHECKSUM_ENTRIES_64(0), CHECKSUM_ENTRIES_64(64),
                                             CHECKSUM_ENTRIES_64(128), CHECKSUM_ENTRIES_64(192)};

/* All take and give the inverted register. */
typedef uint32_t checksum_function(uint32_t state, const unsigned char *bytes, size_t size);

OMENDB_INTERNAL uint32_t checksum_by_table(uint32_t state, const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        state = checksum_table[(state ^ bytes[i]) & 0xFF] ^ (state >> 8);
    return state;
}

#if CHECKSUM_X86
__attribute__((target("sse4.2"))) static uint32_t
checksum_by_sse42(uint32_t state, const unsigned char *bytes, size_t size)
{
    uint64_t wide = state, word;
    for (; size >= sizeof word; size -= sizeof word, bytes += sizeof word) {
        memcpy(&word, bytes, sizeof word);
        wide = _mm_crc32_u64(wide, word);
    }
    state = (uint32_t)wide;
    for (; size > 0; size--)
        state = _mm_crc32_u8(state, *bytes++);
    return state;
}

/* Three runs of CHECKSUM_RUN bytes make a chunk, four chunks fill all but 256 bytes of a block of
 * 16 KiB. The register of a run must be multiplied by x^8 for each byte that follows it in the
 * chunk; one CRC instruction then reduces the product, which itself multiplies by x^33. Hence the
 * constants x^(8 * CHECKSUM_RUN - 33) and x^(16 * CHECKSUM_RUN - 33) modulo the polynomial. */
#define CHECKSUM_RUN ((size_t)1344)

__attribute__((target("sse4.2,pclmul"))) static uint32_t
checksum_by_three_runs(uint32_t state, const unsigned char *bytes, size_t size)
{
    const __m128i after_two = _mm_cvtsi32_si128((int)0x889774E1u);
    const __m128i after_one = _mm_cvtsi32_si128((int)0xC9C8B782u);
    for (; size >= 3 * CHECKSUM_RUN; size -= 3 * CHECKSUM_RUN, bytes += 3 * CHECKSUM_RUN) {
        uint64_t a = state, b = 0, c = 0, word;
        for (size_t i = 0; i < CHECKSUM_RUN; i += sizeof word) {
            memcpy(&word, bytes + i, sizeof word);
            a = _mm_crc32_u64(a, word);
            memcpy(&word, bytes + CHECKSUM_RUN + i, sizeof word);
            b = _mm_crc32_u64(b, word);
            memcpy(&word, bytes + 2 * CHECKSUM_RUN + i, sizeof word);
            c = _mm_crc32_u64(c, word);
        }
        const __m128i moved_a = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)a), after_two, 0);
        const __m128i moved_b = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)b), after_one, 0);
        word = (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(moved_a, moved_b));
        state = (uint32_t)(_mm_crc32_u64(0, word) ^ c);
    }
    return checksum_by_sse42(state, bytes, size);
}
#undef CHECKSUM_RUN
#endif

#if CHECKSUM_ARM
/* As assembly, because the compilers disagree on the name of the attribute behind the intrinsics.
 */
static uint32_t checksum_by_arm(uint32_t state, const unsigned char *bytes, size_t size)
{
    uint64_t word;
    for (; size >= sizeof word; size -= sizeof word, bytes += sizeof word) {
        memcpy(&word, bytes, sizeof word);
        __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(state) : "r"(word));
    }
    for (; size > 0; size--)
        __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1"
                : "+r"(state)
                : "r"((uint32_t)*bytes++));
    return state;
}
#endif

static checksum_function *checksum_choose(void)
{
#if CHECKSUM_X86
    unsigned int a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 20)) != 0)
        return (c & (1u << 1)) != 0 ? checksum_by_three_runs : checksum_by_sse42;
#elif CHECKSUM_ARM && defined(__linux__)
    if ((getauxval(AT_HWCAP) & (1u << 7)) != 0)
        return checksum_by_arm;
#elif CHECKSUM_ARM
    return checksum_by_arm; /* every arm64 Mac has it */
#endif
    return checksum_by_table;
}

OMENDB_INTERNAL uint32_t checksum_crc32c(uint32_t crc, const void *data, size_t size)
{
    /* Only the pointer is shared and it points at constant code: relaxed is enough. */
    static _Atomic(checksum_function *) chosen;
    checksum_function *function = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (OMENDB_UNLIKELY(function == NULL)) {
        function = checksum_choose();
        atomic_store_explicit(&chosen, function, memory_order_relaxed);
    }
    return ~function(~crc, data, size);
}

#undef CHECKSUM_X86
#undef CHECKSUM_ARM
#undef CHECKSUM_ENTRY
#undef CHECKSUM_ENTRIES_4
#undef CHECKSUM_ENTRIES_16
#undef CHECKSUM_ENTRIES_64
