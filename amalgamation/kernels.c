/* kernels.c: which level is in use.
 *
 * Invariant: kernels_published goes from null to one table and changes no more. Threads that race
 * to be first each detect, reach the same answer and store the same pointer, so no lock and no
 * initializer is needed. The tables are constants of the program; release and acquire are used all
 * the same, which costs nothing and leaves no argument to make.
 *
 * The environment variable OMENDB_KERNELS names a level: "scalar"; "avx2", "avx512", "avx512vnni"
 * on x86-64; "neon", "neondotprod" on arm64. A level that the processor lacks gives the best one
 * below; a name that this build does not know is ignored. It is read once, at the first use.
 *
 * Rejected: choosing for each function by its own features, which makes twenty tested combinations
 * out of four; an ifunc, which neither macOS nor musl has. */
#include "kernels.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"

#define KERNELS_LEVELS 4

struct kernels_level {
    const struct kernel_table *table;
    bool runs;
};

/* The levels that are compiled, each needing what the ones before need. */
static size_t kernels_compiled(struct kernels_level *levels)
{
    struct cpu_features cpu;
    size_t count = 0;

    cpu_detect(&cpu);
    levels[count++] = (struct kernels_level){kernels_scalar_table(), true};
#if KERNELS_X86
    levels[count++] = (struct kernels_level){kernels_avx2_table(), cpu.avx2};
    levels[count++] = (struct kernels_level){kernels_avx512_table(), cpu.avx512};
    levels[count++] = (struct kernels_level){kernels_avx512vnni_table(), cpu.vnni};
#endif
#if KERNELS_NEON
    levels[count++] = (struct kernels_level){kernels_neon_table(), true};
#endif
#if KERNELS_NEONDOT
    levels[count++] = (struct kernels_level){kernels_neondot_table(), cpu.dotprod};
#endif
    return count;
}

OMENDB_INTERNAL size_t kernels_levels(const struct kernel_table **out, size_t capacity)
{
    struct kernels_level levels[KERNELS_LEVELS];
    const size_t compiled = kernels_compiled(levels);
    size_t count = 0, i;

    for (i = 0; i < compiled; i++) {
        if (!levels[i].runs) {
            continue;
        }
        if (count < capacity) {
            out[count] = levels[i].table;
        }
        count++;
    }
    return count;
}

OMENDB_INTERNAL const struct kernel_table *kernels_choose(const char *name)
{
    struct kernels_level levels[KERNELS_LEVELS];
    const size_t compiled = kernels_compiled(levels);
    const struct kernel_table *best = levels[0].table;
    size_t i;

    for (i = 0; i < compiled; i++) {
        if (levels[i].runs) {
            best = levels[i].table;
        }
        if (name != NULL && strcmp(name, levels[i].table->name) == 0) {
            break;
        }
    }
    return best;
}

OMENDB_INTERNAL const struct kernel_table *kernels_active(void)
{
    static _Atomic(const struct kernel_table *) kernels_published;
    const struct kernel_table *table =
        atomic_load_explicit(&kernels_published, memory_order_acquire);

    if (OMENDB_UNLIKELY(table == NULL)) {
        table = kernels_choose(getenv("OMENDB_KERNELS"));
        atomic_store_explicit(&kernels_published, table, memory_order_release);
    }
    return table;
}

OMENDB_INTERNAL const struct kernel *kernels_for(omendb_scalar scalar, omendb_metric metric)
{
    const struct kernel *kernel;

    if ((unsigned int)scalar >= KERNEL_SCALARS || (unsigned int)metric >= KERNEL_METRICS) {
        return NULL;
    }
    kernel = &kernels_active()->by_type[scalar][metric];
    return kernel->pair == NULL ? NULL : kernel;
}

#undef KERNELS_LEVELS
#undef KERNELS_INLINE
#undef KERNELS_DEFINE
#undef KERNELS_DEFINE_TYPE
#undef KERNELS_ROW
#undef KERNELS_ROW_BITS
#undef KERNELS_AVX2
#undef KERNELS_AVX512
#undef KERNELS_AVX512VNNI
