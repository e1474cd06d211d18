/* test_kernels_emulated.c: the AVX-512 kernels on processors without it.
 *
 * kernels_avx512.c is compiled over SIMDe (Debian: libsimde-dev), which implements the intrinsics
 * in portable C, and is checked like every other level. What that cannot show is that the right
 * target attribute is on each function, and the rates. The intrinsics that SIMDe 0.7.4 lacks are
 * written out below. There is nothing to run where SIMDe is not installed, under sanitizers (it
 * lets signed bytes overflow) and on other architectures. */
#define _DEFAULT_SOURCE 1

#if defined(__SANITIZE_ADDRESS__)
#define EMULATED_SANITIZED 1
#elif defined(__has_feature)
#define EMULATED_SANITIZED __has_feature(address_sanitizer)
#else
#define EMULATED_SANITIZED 0
#endif

#if defined(__has_include) && defined(__x86_64__) && !EMULATED_SANITIZED
#if __has_include(<simde/x86/avx512.h>)
#define EMULATED 1
#endif
#endif

#if defined(EMULATED)

#define KERNELS_EMULATED_X86        1
#define SIMDE_NO_NATIVE             1
#define SIMDE_ENABLE_NATIVE_ALIASES 1
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wshadow"
#endif
#include <simde/x86/avx2.h>
#include <simde/x86/avx512.h>
#include <simde/x86/f16c.h>
#include <simde/x86/fma.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#pragma GCC diagnostic ignored "-Wpsabi" /* no vector crosses into code compiled otherwise */
#pragma GCC diagnostic ignored "-Wunused-function" /* one module alone */
#endif
#if defined(__clang__)
#pragma GCC diagnostic ignored "-Wpass-failed" /* SIMDe asks for vectors where there are none */
#endif

#include <stdint.h>
#include <string.h>

/* Copies the elements of a mask and zeroes the others. */
static void emulated_masked_copy(void *out, const void *from, uint64_t mask, size_t count,
                                 size_t element_bytes)
{
    size_t i;

    for (i = 0; i < count; i++) {
        unsigned char *to = (unsigned char *)out + i * element_bytes;
        memset(to, 0, element_bytes);
        if (mask >> i & 1) {
            memcpy(to, (const unsigned char *)from + i * element_bytes, element_bytes);
        }
    }
}

static simde__m512i emulated_maskz_load512(uint64_t mask, const void *from, size_t element_bytes)
{
    simde__m512i out;

    emulated_masked_copy(&out, from, mask, 64 / element_bytes, element_bytes);
    return out;
}

static simde__m256i emulated_maskz_load256(uint64_t mask, const void *from, size_t element_bytes)
{
    simde__m256i out;

    emulated_masked_copy(&out, from, mask, 32 / element_bytes, element_bytes);
    return out;
}

static simde__m512 emulated_cvtph512(simde__m256i halves)
{
    simde__m256 parts[2];
    simde__m128i both[2];
    simde__m512 out;

    memcpy(both, &halves, sizeof both);
    parts[0] = simde_mm256_cvtph_ps(both[0]);
    parts[1] = simde_mm256_cvtph_ps(both[1]);
    memcpy(&out, parts, sizeof out);
    return out;
}

static simde__m512i emulated_widen_bytes(simde__m256i bytes)
{
    simde__m128i both[2];
    simde__m256i parts[2];
    simde__m512i out;

    memcpy(both, &bytes, sizeof both);
    parts[0] = simde_mm256_cvtepu8_epi16(both[0]);
    parts[1] = simde_mm256_cvtepu8_epi16(both[1]);
    memcpy(&out, parts, sizeof out);
    return out;
}

typedef simde__mmask16 __mmask16;
typedef simde__mmask32 __mmask32;
typedef simde__mmask64 __mmask64;

#undef _mm512_madd_epi16 /* SIMDe's alias takes the arguments of another intrinsic */
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#undef _mm512_maskz_loadu_epi8
#undef _mm512_maskz_loadu_epi16
#undef _mm512_maskz_loadu_epi32
#undef _mm256_maskz_loadu_epi8
#undef _mm256_maskz_loadu_epi16
#undef _mm512_cvtph_ps
#undef _mm512_cvtepu8_epi16
#define _mm512_maskz_loadu_epi8(mask, from)  emulated_maskz_load512(mask, from, 1)
#define _mm512_maskz_loadu_epi16(mask, from) emulated_maskz_load512(mask, from, 2)
#define _mm512_maskz_loadu_epi32(mask, from) emulated_maskz_load512(mask, from, 4)
#define _mm256_maskz_loadu_epi8(mask, from)  emulated_maskz_load256(mask, from, 1)
#define _mm256_maskz_loadu_epi16(mask, from) emulated_maskz_load256(mask, from, 2)
#define _mm512_cvtph_ps(halves)              emulated_cvtph512(halves)
#define _mm512_cvtepu8_epi16(bytes)          emulated_widen_bytes(bytes)

#include "amalgamation/kernels_avx512.c"

#include "kernel_checks.h"

static const struct kernel_table *levels[2];

static void find_levels(void)
{
    levels[0] = kernels_avx512_table();
    levels[1] = kernels_avx512vnni_table();
}

TEST(emulated_avx512_agrees_at_small_dimensions_and_every_offset)
{
    find_levels();
    checks_small_at_every_offset(levels[0]);
}

TEST(emulated_avx512vnni_agrees_at_small_dimensions_and_every_offset)
{
    find_levels();
    checks_small_at_every_offset(levels[1]);
}

TEST(emulated_avx512_reads_nothing_around_a_vector)
{
    find_levels();
    checks_with_arenas(levels[0], checks_visit_page_ends);
    checks_with_arenas(levels[1], checks_visit_page_ends);
}

TEST(emulated_avx512_agrees_at_large_dimensions_and_extreme_values)
{
    find_levels();
    checks_with_arenas(levels[0], checks_visit_large);
    checks_with_arenas(levels[1], checks_visit_large);
}

TEST(emulated_avx512_takes_zero_vectors)
{
    find_levels();
    checks_with_arenas(levels[0], checks_visit_zeros);
    checks_with_arenas(levels[1], checks_visit_zeros);
}

TEST_MAIN(emulated_avx512_agrees_at_small_dimensions_and_every_offset,
          emulated_avx512vnni_agrees_at_small_dimensions_and_every_offset,
          emulated_avx512_reads_nothing_around_a_vector,
          emulated_avx512_agrees_at_large_dimensions_and_extreme_values,
          emulated_avx512_takes_zero_vectors)

#else

#include "test.h"

TEST(there_is_no_emulation_to_run)
{
}

TEST_MAIN(there_is_no_emulation_to_run)

#endif
