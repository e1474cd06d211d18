/* cpu.c: detection of the instruction sets that the kernels are compiled for.
 *
 * Invariant: a flag is true only if the processor has every feature named in the target attribute
 * of the kernels behind it, and the operating system saves the registers that they use. A processor
 * may have AVX2 under a system or hypervisor that does not save the upper register halves; then the
 * first such instruction traps, or, worse, the registers are silently lost at a context switch.
 * Hence on x86-64 OSXSAVE is checked first and XCR0 after it: bits 1 and 2 (xmm, ymm) for AVX2, and
 * bits 5 to 7 (masks, upper halves of zmm0-15, zmm16-31) on top for AVX-512.
 *
 * Rejected: __builtin_cpu_supports, whose knowledge differs between compilers and their versions,
 * and detection in a constructor, which would run code in programs that never open a database.
 *
 * On arm64 the dot product instructions are optional before Armv8.4; Linux reports them in the
 * auxiliary vector and macOS by a sysctl. Elsewhere the baseline is used. */
#include "cpu.h"

#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

#include <cpuid.h>
#include <immintrin.h>

__attribute__((target("xsave"))) static uint64_t cpu_saved_registers(void)
{
    return (uint64_t)_xgetbv(0);
}

static bool cpu_has(unsigned int word, unsigned int bits)
{
    return (word & bits) == bits;
}

OMENDB_INTERNAL void cpu_detect(struct cpu_features *features)
{
    const unsigned int osxsave = 1u << 27;
    const unsigned int fma_popcnt_avx_f16c = 1u << 12 | 1u << 23 | 1u << 28 | 1u << 29;
    const unsigned int avx2 = 1u << 5;
    const unsigned int avx512_f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    const unsigned int vnni = 1u << 11;
    unsigned int a, b, c, d, b7, c7;
    uint64_t saved;

    memset(features, 0, sizeof *features);
    if (!__get_cpuid(1, &a, &b, &c, &d) || !cpu_has(c, osxsave)) {
        return;
    }
    saved = cpu_saved_registers();
    if ((saved & 0x06) != 0x06 || !cpu_has(c, fma_popcnt_avx_f16c) ||
        !__get_cpuid_count(7, 0, &a, &b7, &c7, &d) || !cpu_has(b7, avx2)) {
        return;
    }
    features->avx2 = true;
    if ((saved & 0xE6) != 0xE6 || !cpu_has(b7, avx512_f_dq_bw_vl)) {
        return;
    }
    features->avx512 = true;
    features->vnni = cpu_has(c7, vnni);
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

OMENDB_INTERNAL void cpu_detect(struct cpu_features *features)
{
    const unsigned long hwcap_asimddp = 1ul << 20;

    memset(features, 0, sizeof *features);
    features->dotprod = (getauxval(AT_HWCAP) & hwcap_asimddp) != 0;
}

#elif defined(__aarch64__) && defined(__APPLE__)

#include <sys/types.h>
#include <sys/sysctl.h>

OMENDB_INTERNAL void cpu_detect(struct cpu_features *features)
{
    int value = 0;
    size_t bytes = sizeof value;

    memset(features, 0, sizeof *features);
    features->dotprod =
        sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &bytes, NULL, 0) == 0 && value == 1;
}

#else

OMENDB_INTERNAL void cpu_detect(struct cpu_features *features)
{
    memset(features, 0, sizeof *features);
}

#endif
