/* cpu.h: what the processor and the operating system together allow. */
#ifndef OMENDB_CPU_H
#define OMENDB_CPU_H

#include <stdbool.h>

#include "internal.h"

struct cpu_features {
    bool avx2;   /* x86-64: AVX2, FMA, F16C and POPCNT, and the system saves the ymm registers */
    bool avx512; /* the above, AVX-512 F, BW, DQ and VL, and the system saves zmm and mask registers
                  */
    bool vnni;   /* the above and AVX512_VNNI */
    bool dotprod; /* arm64: UDOT and SDOT */
};

/* Fills `features` for the processor that runs the call. Costs some microseconds; any thread. */
OMENDB_INTERNAL void cpu_detect(struct cpu_features *features);

#endif
