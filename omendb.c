/* omendb.c: the OmenDB library in one file. Compile it with any program:
 *
 *     cc -std=c11 -O2 app.c omendb.c -lm -lpthread
 *
 * GENERATED from the modules in amalgamation/ by amalgamation/amalgamate.py: do not edit. The manual
 * is omendb.h. Only omendb_* symbols are global; everything else is static.
 *
 * Copyright 2026 The OmenDB Authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except
 * in compliance with the License. You may obtain a copy of the License at
 *
 *     http://www.apache.org/licenses/LICENSE-2.0
 *
 * Unless required by applicable law or agreed to in writing, software distributed under the License
 * is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express
 * or implied. See the License for the specific language governing permissions and limitations under
 * the License.
 *
 * Modules: error.c checksum.c platform.c memory.c sort.c vfs_posix.c vfs_memory.c cpu.c
 *     scalar.c kernels_scalar.c kernels_avx2.c kernels_avx512.c kernels_neon.c
 *     kernels.c codes.c graph.c graph_walk.c graph_build.c graph_bulk.c idmap.c
 *     tombstones.c calibration.c storage.c blocks.c segment.c wal.c manifest.c
 *     memtable.c version.c hot.c txn.c commit.c checkpoint.c calibrate.c compact.c
 *     recover.c work.c search.c rows.c backup.c check.c database.c records.c api.c
 * SHA-256 of the inputs: 1920a36654f49b87af4ea14241722859d36ab1859ec37822d86aedc1a69a8003
 */

/* Systems hide what is not in ISO C under -std=c11. These must come before any system header. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1
#endif
#if defined(__APPLE__) && !defined(_DARWIN_C_SOURCE)
#define _DARWIN_C_SOURCE 1
#endif
#if !defined(_FILE_OFFSET_BITS)
#define _FILE_OFFSET_BITS 64
#endif

#include "omendb.h"

/* ==============================================================================================
 * error.c
 * ============================================================================================== */

/* error.c: the thread's last error, and the names of codes.
 *
 * The sentence lives in a thread-local buffer, so that setting it needs no memory (the commonest
 * moment to fail is when there is none left), no lock, and no handle: a failed open has none.
 *
 * Invariant: the buffer always holds a terminated text, and never a cut-off UTF-8 character (names
 * and paths of the user are quoted in it, and bindings decode it strictly).
 *
 * Rejected: a text kept in each handle (two threads on one handle would overwrite each other's),
 * and an allocated text (it needs a release call, and fails when it is needed most). */

/* ==============================================================================================
 * error.h
 * ============================================================================================== */

/* error.h: the thread's last error. A function that fails sets the sentence where the facts are
 * known and returns the code; callers above pass the code on without touching the sentence. */
#ifndef OMENDB_ERROR_H
#define OMENDB_ERROR_H

/* ==============================================================================================
 * internal.h
 * ============================================================================================== */

/* internal.h: the linkage and the few helpers that every module shares.
 *
 * Invariant: under the amalgamation every function that is not public is `static`, so that a
 * program that links omendb.c sees only omendb_* symbols. Modules that are compiled alone (none is,
 * in the product) would need external linkage instead; the macro keeps that possible without
 * editing a declaration. */
#ifndef OMENDB_INTERNAL_H
#define OMENDB_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define OMENDB_INTERNAL    static __attribute__((unused))
#define OMENDB_LIKELY(x)   __builtin_expect(!!(x), 1)
#define OMENDB_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#define OMENDB_INTERNAL    static
#define OMENDB_LIKELY(x)   (x)
#define OMENDB_UNLIKELY(x) (x)
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "OmenDB files are little-endian; big-endian hosts are not supported"
#endif

/* Vectors, links and codes start on a cache line. */
#define OMENDB_CACHE_LINE 64

#endif

/* error.h, continued */

#if defined(__GNUC__) || defined(__clang__)
#define OMENDB_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define OMENDB_PRINTF(format_index, first)
#endif

/* A sentence with its NUL fits this. */
#define ERROR_TEXT_BYTES 512

/* Formats the sentence (cut at 511 bytes) and returns `code`. */
OMENDB_INTERNAL int error_set(int code, const char *format, ...) OMENDB_PRINTF(2, 3);

/* As error_set, with ": <reason of errno>" added when `system_error` is not 0. */
OMENDB_INTERNAL int error_set_system(int code, int system_error, const char *format, ...)
    OMENDB_PRINTF(3, 4);

/* The sentence of this thread. */
OMENDB_INTERNAL const char *error_text(void);

/* Puts a sentence that another thread got (a group's leader, a background step) in this thread's
 * place; returns `code`. */
OMENDB_INTERNAL int error_adopt(int code, const char *text);

#endif

/* error.c, continued */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char error_buffer[ERROR_TEXT_BYTES];

/* Drops the last character if the cut at the end of the buffer went through it. */
static void error_trim(char *text, size_t length)
{
    size_t start = length;
    while (start > 0 && length - start < 4 && ((unsigned char)text[start - 1] & 0xC0) == 0x80)
        start--;
    if (start == 0 || (unsigned char)text[start - 1] < 0xC0)
        return;
    const unsigned char lead = (unsigned char)text[start - 1];
    const size_t wanted = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (length - start < wanted)
        text[start - 1] = '\0';
}

/* Formats aside first: an argument may be the present sentence. */
static void error_format(char *text, const char *format, va_list arguments)
{
    const int length = vsnprintf(text, ERROR_TEXT_BYTES, format, arguments);
    if (length < 0)
        text[0] = '\0';
    else if (length >= ERROR_TEXT_BYTES)
        error_trim(text, ERROR_TEXT_BYTES - 1);
}

OMENDB_INTERNAL int error_adopt(int code, const char *text)
{
    char copy[ERROR_TEXT_BYTES];
    size_t length = strlen(text);
    const int cut = length >= ERROR_TEXT_BYTES;
    if (cut)
        length = ERROR_TEXT_BYTES - 1;
    memcpy(copy, text, length);
    copy[length] = '\0';
    if (cut)
        error_trim(copy, length);
    memcpy(error_buffer, copy, length + 1);
    return code;
}

OMENDB_INTERNAL int error_set(int code, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    error_format(text, format, arguments);
    va_end(arguments);
    return error_adopt(code, text);
}

/* glibc and Android return the text, POSIX a status. */
static const char *error_reason(int system_error, char *buffer, size_t size)
{
#if (defined(__GLIBC__) || defined(__ANDROID__)) && defined(_GNU_SOURCE)
    return strerror_r(system_error, buffer, size);
#else
    return strerror_r(system_error, buffer, size) == 0 ? buffer : "unknown reason";
#endif
}

OMENDB_INTERNAL int error_set_system(int code, int system_error, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES], reason[128];
    va_list arguments;
    va_start(arguments, format);
    error_format(text, format, arguments);
    va_end(arguments);
    if (system_error == 0)
        return error_adopt(code, text);
    return error_set(code, "%s: %s", text, error_reason(system_error, reason, sizeof reason));
}

OMENDB_INTERNAL const char *error_text(void)
{
    return error_buffer;
}

OMENDB_API const char *omendb_errmsg(void)
{
    return error_buffer;
}

OMENDB_API const char *omendb_strerror(int code)
{
    static const char *const names[] = {
        [OMENDB_OK] = "ok",
        [OMENDB_INVALID] = "invalid",
        [OMENDB_NOTFOUND] = "not found",
        [OMENDB_EXISTS] = "exists",
        [OMENDB_MISMATCH] = "mismatch",
        [OMENDB_BUSY] = "busy",
        [OMENDB_CONFLICT] = "conflict",
        [OMENDB_READONLY] = "read-only",
        [OMENDB_MISUSE] = "misuse",
        [OMENDB_NOMEM] = "no memory",
        [OMENDB_FULL] = "full",
        [OMENDB_IOERR] = "i/o error",
        [OMENDB_PERMISSION] = "no permission",
        [OMENDB_CORRUPT] = "corrupt",
        [OMENDB_FORMAT] = "unknown format",
        [OMENDB_POISONED] = "poisoned",
        [OMENDB_DROPPED] = "dropped",
        [OMENDB_TOOBIG] = "too big",
        [OMENDB_UNSUPPORTED] = "unsupported",
        [OMENDB_DONE] = "done",
        [OMENDB_TIMEOUT] = "timed out",
    };
    if (code < 0 || (size_t)code >= sizeof names / sizeof names[0])
        return "unknown code";
    return names[code];
}

/* ==============================================================================================
 * checksum.c
 * ============================================================================================== */

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

/* ==============================================================================================
 * checksum.h
 * ============================================================================================== */

/* checksum.h: CRC32C (Castagnoli, RFC 3720 appendix B.4), by SSE4.2 or ARMv8 CRC instructions where
 * there are some. */
#ifndef OMENDB_CHECKSUM_H
#define OMENDB_CHECKSUM_H

/* Continues `crc` (0 to begin) over `size` bytes. */
OMENDB_INTERNAL uint32_t checksum_crc32c(uint32_t crc, const void *data, size_t size);

#endif

/* checksum.c, continued */

#include <stdatomic.h>

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

static uint32_t checksum_by_table(uint32_t state, const unsigned char *bytes, size_t size)
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

/* ==============================================================================================
 * platform.c
 * ============================================================================================== */

/* platform.c: threads, processes and randomness on POSIX systems.
 *
 * Locking calls cannot fail when used as the contract says, so what they return is asserted, not
 * passed on; only making an object can lack memory.
 *
 * Conditions wait on the monotonic clock, so that a change of the wall clock neither ends nor
 * prolongs a wait.
 *
 * Our threads block the signals that a host may handle at any thread (its handlers then run on its
 * own threads), but not those that a fault raises in the thread itself: blocked, they would end the
 * process without the host's crash report.
 *
 * Rejected: C11 <threads.h> (macOS has none, and its conditions wait on the wall clock). */

/* ==============================================================================================
 * platform.h
 * ============================================================================================== */

/* platform.h: threads, time and processes, behind names of our own, so that one file changes for
 * another system. Files are not here: they are behind omendb_vfs (vfs_posix.c, vfs_memory.c). */
#ifndef OMENDB_PLATFORM_H
#define OMENDB_PLATFORM_H

#include <pthread.h>

struct platform_mutex {
    pthread_mutex_t handle;
};
struct platform_condition {
    pthread_cond_t handle; /* on the monotonic clock */
};
struct platform_thread {
    pthread_t handle;
};

OMENDB_INTERNAL int
platform_mutex_init(struct platform_mutex *mutex); /* OMENDB_OK or OMENDB_NOMEM */
OMENDB_INTERNAL void platform_mutex_destroy(struct platform_mutex *mutex);
OMENDB_INTERNAL void platform_mutex_lock(struct platform_mutex *mutex);
OMENDB_INTERNAL void platform_mutex_unlock(struct platform_mutex *mutex);

OMENDB_INTERNAL int platform_condition_init(struct platform_condition *condition);
OMENDB_INTERNAL void platform_condition_destroy(struct platform_condition *condition);
OMENDB_INTERNAL void platform_condition_wait(struct platform_condition *condition,
                                             struct platform_mutex *mutex);
/* Returns 0 when `timeout_us` went by without a signal. */
OMENDB_INTERNAL int platform_condition_wait_for(struct platform_condition *condition,
                                                struct platform_mutex *mutex, uint64_t timeout_us);
OMENDB_INTERNAL void platform_condition_broadcast(struct platform_condition *condition);

OMENDB_INTERNAL int platform_thread_start(struct platform_thread *thread, void *(*run)(void *),
                                          void *argument); /* OMENDB_NOMEM */
OMENDB_INTERNAL void platform_thread_join(struct platform_thread *thread);
OMENDB_INTERNAL void platform_yield(void);
OMENDB_INTERNAL void platform_sleep_us(uint64_t us);
OMENDB_INTERNAL uint32_t platform_cores(void);   /* that this process may use; at least 1 */
OMENDB_INTERNAL uint64_t platform_process(void); /* changes in a forked child */
OMENDB_INTERNAL void platform_advise_huge(void *memory, size_t size);
OMENDB_INTERNAL void platform_random(void *out, size_t size); /* not for secrets: salts of logs */

/* Hint to a spinning core. */
static inline void platform_pause(void)
{
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __builtin_ia32_pause();
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
    __asm__ volatile("yield");
#endif
}

/* vfs_memory.c: a vfs whose files live in `memory`; freed by vfs_memory_destroy. For ":memory:".
 * map gives the file's own bytes. */
struct memory;
OMENDB_INTERNAL int vfs_memory_create(struct memory *memory, omendb_vfs *vfs);
OMENDB_INTERNAL void vfs_memory_destroy(omendb_vfs *vfs);

#endif

/* platform.c, continued */

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#include <sys/mman.h>

#if defined(__APPLE__)
#include <sys/random.h>
#endif

OMENDB_INTERNAL int platform_mutex_init(struct platform_mutex *mutex)
{
    return pthread_mutex_init(&mutex->handle, NULL) == 0 ? OMENDB_OK : OMENDB_NOMEM;
}

OMENDB_INTERNAL void platform_mutex_destroy(struct platform_mutex *mutex)
{
    const int failed = pthread_mutex_destroy(&mutex->handle);
    assert(!failed);
    (void)failed;
}

OMENDB_INTERNAL void platform_mutex_lock(struct platform_mutex *mutex)
{
    const int failed = pthread_mutex_lock(&mutex->handle);
    assert(!failed);
    (void)failed;
}

OMENDB_INTERNAL void platform_mutex_unlock(struct platform_mutex *mutex)
{
    const int failed = pthread_mutex_unlock(&mutex->handle);
    assert(!failed);
    (void)failed;
}

OMENDB_INTERNAL int platform_condition_init(struct platform_condition *condition)
{
#if defined(__APPLE__)
    return pthread_cond_init(&condition->handle, NULL) == 0 ? OMENDB_OK : OMENDB_NOMEM;
#else
    pthread_condattr_t attributes;
    int failed = pthread_condattr_init(&attributes);
    if (failed)
        return OMENDB_NOMEM;
    failed = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (!failed)
        failed = pthread_cond_init(&condition->handle, &attributes);
    pthread_condattr_destroy(&attributes);
    return failed ? OMENDB_NOMEM : OMENDB_OK;
#endif
}

OMENDB_INTERNAL void platform_condition_destroy(struct platform_condition *condition)
{
    const int failed = pthread_cond_destroy(&condition->handle);
    assert(!failed);
    (void)failed;
}

OMENDB_INTERNAL void platform_condition_wait(struct platform_condition *condition,
                                             struct platform_mutex *mutex)
{
    const int failed = pthread_cond_wait(&condition->handle, &mutex->handle);
    assert(!failed);
    (void)failed;
}

OMENDB_INTERNAL int platform_condition_wait_for(struct platform_condition *condition,
                                                struct platform_mutex *mutex, uint64_t timeout_us)
{
    const uint64_t longest_us = UINT64_C(1000000) * 86400 * 365; /* keeps time_t from overflowing */
    struct timespec time = {0, 0};
    int status;
    if (timeout_us > longest_us)
        timeout_us = longest_us;
#if defined(__APPLE__)
    time.tv_sec = (time_t)(timeout_us / 1000000);
    time.tv_nsec = (long)(timeout_us % 1000000) * 1000;
    status = pthread_cond_timedwait_relative_np(&condition->handle, &mutex->handle, &time);
#else
    clock_gettime(CLOCK_MONOTONIC, &time);
    time.tv_sec += (time_t)(timeout_us / 1000000);
    time.tv_nsec += (long)(timeout_us % 1000000) * 1000;
    if (time.tv_nsec >= 1000000000) {
        time.tv_sec++;
        time.tv_nsec -= 1000000000;
    }
    status = pthread_cond_timedwait(&condition->handle, &mutex->handle, &time);
#endif
    assert(status == 0 || status == ETIMEDOUT);
    return status == 0;
}

OMENDB_INTERNAL void platform_condition_broadcast(struct platform_condition *condition)
{
    const int failed = pthread_cond_broadcast(&condition->handle);
    assert(!failed);
    (void)failed;
}

/* A new thread inherits the mask of the one that makes it. */
OMENDB_INTERNAL int platform_thread_start(struct platform_thread *thread, void *(*run)(void *),
                                          void *argument)
{
    static const int raised_by_faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    sigset_t blocked, before;
    int failed;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof raised_by_faults / sizeof raised_by_faults[0]; i++)
        sigdelset(&blocked, raised_by_faults[i]);
    sigdelset(&blocked, SIGPROF); /* a profiler wants to see our threads too */
    if (pthread_sigmask(SIG_SETMASK, &blocked, &before) != 0)
        return OMENDB_NOMEM;
    failed = pthread_create(&thread->handle, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed ? OMENDB_NOMEM : OMENDB_OK;
}

OMENDB_INTERNAL void platform_thread_join(struct platform_thread *thread)
{
    const int failed = pthread_join(thread->handle, NULL);
    assert(!failed);
    (void)failed;
}

OMENDB_INTERNAL void platform_yield(void)
{
    sched_yield();
}

OMENDB_INTERNAL void platform_sleep_us(uint64_t us)
{
    struct timespec left;
    left.tv_sec = (time_t)(us / 1000000);
    left.tv_nsec = (long)(us % 1000000) * 1000;
    while (nanosleep(&left, &left) != 0 && errno == EINTR) {
    }
}

OMENDB_INTERNAL uint32_t platform_cores(void)
{
    long cores;
#if defined(__linux__) && defined(CPU_COUNT)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) > 0)
        return (uint32_t)CPU_COUNT(&allowed);
#endif
    cores = sysconf(_SC_NPROCESSORS_ONLN);
    return cores < 1 ? 1 : cores > 65536 ? 65536 : (uint32_t)cores;
}

OMENDB_INTERNAL uint64_t platform_process(void)
{
    return (uint64_t)getpid();
}

/* Advice only: where the kernel has no huge pages nothing is lost. The range is cut to whole pages.
 */
OMENDB_INTERNAL void platform_advise_huge(void *memory, size_t size)
{
#if defined(MADV_HUGEPAGE)
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = ((uintptr_t)memory + page - 1) & ~(page - 1);
    const uintptr_t last = ((uintptr_t)memory + size) & ~(page - 1);
    if (last > first)
        madvise((void *)first, last - first, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)size;
#endif
}

/* For systems that refuse to give entropy (a sandbox): time, process and address, mixed as in
 * splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
static void platform_random_fallback(unsigned char *bytes, size_t size)
{
    struct timespec now = {0, 0};
    uint64_t state;
    clock_gettime(CLOCK_REALTIME, &now);
    state = (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
    state ^= platform_process() << 40 ^ (uint64_t)(uintptr_t)bytes;
    for (size_t i = 0; i < size; i++) {
        uint64_t mixed = state += UINT64_C(0x9E3779B97F4A7C15);
        mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
        mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94D049BB133111EB);
        bytes[i] = (unsigned char)(mixed >> 56);
    }
}

OMENDB_INTERNAL void platform_random(void *out, size_t size)
{
    unsigned char *bytes = out;
    while (size > 0) {
        const size_t step = size < 256 ? size : 256; /* the most that getentropy gives */
        if (getentropy(bytes, step) != 0)
            platform_random_fallback(bytes, step);
        bytes += step;
        size -= step;
    }
}

/* ==============================================================================================
 * memory.c
 * ============================================================================================== */

/* memory.c: the one place that allocates.
 *
 * Every block is asked for and released with its size, so that the count of what is held is exact
 * without a header in front of each block.
 *
 * Invariants:
 * - `used` is the sum of the sizes that the hooks hold for this database, and never above `limit`:
 *   a size is reserved in the count before the hook is called, and given back if the hook fails.
 * - `peak` is the largest `used` after a successful allocation.
 * - a size above PTRDIFF_MAX fails here, whatever the hooks are; so a product or sum that does not
 *   fit (memory_multiply, memory_add give SIZE_MAX) can be passed on without a check.
 *
 * Aligned blocks are cut out of larger ones, because the hooks know only malloc's alignment. The
 * address that the hook gave is kept in the word before the block:
 *
 *     | hook's block ...      | hook's address | aligned block of `size` bytes ... | slack |
 *
 * Rejected: aligned_alloc (hosts' hooks have none, and it has no zeroing variant: calloc gets
 * big blocks fresh from the system, where they are zero without being touched), and a header before
 * every block (it breaks up the cache lines of small ones). */

/* ==============================================================================================
 * memory.h
 * ============================================================================================== */

/* memory.h: the one place that allocates. Each database has a `struct memory`: the host's hooks, a
 * limit and the count of what is held. Over the limit an allocation fails as if the system had none
 * left. A part of the limit, the reserve, is kept for maintenance, so that what writers filled can
 * always be written down and freed. */
#ifndef OMENDB_MEMORY_H
#define OMENDB_MEMORY_H

struct memory {
    omendb_allocator hooks;
    uint64_t limit;   /* 0: none */
    uint64_t reserve; /* of the limit: what only threads in maintenance get */
    _Atomic uint64_t used;
    _Atomic uint64_t peak;
};

/* hooks: NULL for malloc. */
OMENDB_INTERNAL void memory_init(struct memory *memory, const omendb_allocator *hooks,
                                 uint64_t limit);

/* Between the two calls, which nest, this thread gets the reserve, too. */
OMENDB_INTERNAL void memory_begin_maintenance(void);
OMENDB_INTERNAL void memory_end_maintenance(void);

/* NULL over the limit or when the hook fails; size 0 gives a valid pointer. Sets the error message
 * on failure. */
OMENDB_INTERNAL void *memory_alloc(struct memory *memory, size_t size);
OMENDB_INTERNAL void *memory_zalloc(struct memory *memory, size_t size);
OMENDB_INTERNAL void *memory_array(struct memory *memory, size_t count,
                                   size_t element_size); /* checks the product; not zeroed */
OMENDB_INTERNAL void *memory_resize(struct memory *memory, void *block, size_t old_size,
                                    size_t new_size);
OMENDB_INTERNAL void memory_free(struct memory *memory, void *block, size_t size); /* NULL is OK */

/* Zeroed, aligned to a cache line, and to 2 MiB with huge pages advised when size >= 4 MiB.
 * Released only by memory_free_aligned. */
OMENDB_INTERNAL void *memory_alloc_aligned(struct memory *memory, size_t size);
OMENDB_INTERNAL void memory_free_aligned(struct memory *memory, void *block, size_t size);

/* a * b and a + b, or SIZE_MAX when they do not fit: an allocation of that size always fails. */
OMENDB_INTERNAL size_t memory_multiply(size_t a, size_t b);
OMENDB_INTERNAL size_t memory_add(size_t a, size_t b);

#endif

/* memory.c, continued */

#include <inttypes.h>
#include <stdlib.h>

#define MEMORY_HUGE_PAGE      ((size_t)2 << 20)
#define MEMORY_HUGE_THRESHOLD ((size_t)4 << 20)

static _Thread_local uint32_t memory_maintenance; /* how deep in it this thread is */

OMENDB_INTERNAL void memory_begin_maintenance(void)
{
    memory_maintenance++;
}

OMENDB_INTERNAL void memory_end_maintenance(void)
{
    memory_maintenance--;
}

static void *memory_system_alloc(void *context, size_t size)
{
    (void)context;
    return malloc(size);
}

static void *memory_system_resize(void *context, void *block, size_t old_size, size_t new_size)
{
    (void)context;
    (void)old_size;
    return realloc(block, new_size);
}

static void memory_system_release(void *context, void *block, size_t size)
{
    (void)context;
    (void)size;
    free(block);
}

OMENDB_INTERNAL void memory_init(struct memory *memory, const omendb_allocator *hooks,
                                 uint64_t limit)
{
    const omendb_allocator system = {sizeof(omendb_allocator), NULL, memory_system_alloc,
                                     memory_system_resize, memory_system_release};
    memory->hooks = hooks != NULL ? *hooks : system;
    memory->limit = limit;
    memory->reserve = 0;
    atomic_init(&memory->used, 0);
    atomic_init(&memory->peak, 0);
}

OMENDB_INTERNAL size_t memory_multiply(size_t a, size_t b)
{
    return b != 0 && a > SIZE_MAX / b ? SIZE_MAX : a * b;
}

OMENDB_INTERNAL size_t memory_add(size_t a, size_t b)
{
    return a > SIZE_MAX - b ? SIZE_MAX : a + b;
}

/* The counts are statistics and a bound, they publish nothing: relaxed is enough. Returns 0 over
 * the limit. */
static int memory_reserve(struct memory *memory, size_t size)
{
    uint64_t used = atomic_load_explicit(&memory->used, memory_order_relaxed);
    const uint64_t kept = memory_maintenance != 0 ? 0 : memory->reserve;
    const uint64_t limit = memory->limit - kept;
    if (size > (size_t)PTRDIFF_MAX) {
        error_set(OMENDB_NOMEM, "no memory for %zu bytes", size);
        return 0;
    }
    do {
        if (memory->limit != 0 && (used > limit || size > limit - used)) {
            error_set(OMENDB_NOMEM,
                      "memory_limit of %" PRIu64 " bytes reached: in use %" PRIu64
                      ", kept for checkpoints %" PRIu64 ", wanted %zu more",
                      memory->limit, used, kept, size);
            return 0;
        }
    } while (!atomic_compare_exchange_weak_explicit(&memory->used, &used, used + size,
                                                    memory_order_relaxed, memory_order_relaxed));
    return 1;
}

static void memory_give_back(struct memory *memory, size_t size)
{
    atomic_fetch_sub_explicit(&memory->used, size, memory_order_relaxed);
}

static void memory_note_peak(struct memory *memory)
{
    const uint64_t used = atomic_load_explicit(&memory->used, memory_order_relaxed);
    uint64_t peak = atomic_load_explicit(&memory->peak, memory_order_relaxed);
    while (used > peak &&
           !atomic_compare_exchange_weak_explicit(&memory->peak, &peak, used, memory_order_relaxed,
                                                  memory_order_relaxed)) {
    }
}

static void *memory_from_hooks(struct memory *memory, size_t size, int zeroed)
{
    void *block;
    if (!zeroed)
        return memory->hooks.alloc(memory->hooks.context, size);
    if (memory->hooks.alloc == memory_system_alloc)
        return calloc(1, size);
    block = memory->hooks.alloc(memory->hooks.context, size);
    if (block != NULL)
        memset(block, 0, size);
    return block;
}

static void *memory_get(struct memory *memory, size_t size, int zeroed)
{
    void *block;
    /* Hooks are never asked for 0 bytes: malloc may answer NULL, which is no failure. */
    if (size == 0)
        size = 1;
    if (!memory_reserve(memory, size))
        return NULL;
    block = memory_from_hooks(memory, size, zeroed);
    if (block == NULL) {
        memory_give_back(memory, size);
        error_set(OMENDB_NOMEM, "no memory for %zu bytes", size);
        return NULL;
    }
    memory_note_peak(memory);
    return block;
}

OMENDB_INTERNAL void *memory_alloc(struct memory *memory, size_t size)
{
    return memory_get(memory, size, 0);
}

OMENDB_INTERNAL void *memory_zalloc(struct memory *memory, size_t size)
{
    return memory_get(memory, size, 1);
}

OMENDB_INTERNAL void *memory_array(struct memory *memory, size_t count, size_t element_size)
{
    return memory_get(memory, memory_multiply(count, element_size), 0);
}

/* On failure the block stays as it is, with its old size. */
OMENDB_INTERNAL void *memory_resize(struct memory *memory, void *block, size_t old_size,
                                    size_t new_size)
{
    void *moved;
    if (block == NULL)
        return memory_get(memory, new_size, 0);
    old_size = old_size == 0 ? 1 : old_size;
    new_size = new_size == 0 ? 1 : new_size;
    if (new_size > old_size && !memory_reserve(memory, new_size - old_size))
        return NULL;
    moved = new_size > (size_t)PTRDIFF_MAX
                ? NULL
                : memory->hooks.resize(memory->hooks.context, block, old_size, new_size);
    if (moved == NULL) {
        if (new_size > old_size)
            memory_give_back(memory, new_size - old_size);
        error_set(OMENDB_NOMEM, "no memory for %zu bytes", new_size);
        return NULL;
    }
    if (new_size < old_size)
        memory_give_back(memory, old_size - new_size);
    memory_note_peak(memory);
    return moved;
}

OMENDB_INTERNAL void memory_free(struct memory *memory, void *block, size_t size)
{
    if (block == NULL)
        return;
    size = size == 0 ? 1 : size;
    memory->hooks.release(memory->hooks.context, block, size);
    memory_give_back(memory, size);
}

static size_t memory_alignment(size_t size)
{
    return size >= MEMORY_HUGE_THRESHOLD ? MEMORY_HUGE_PAGE : OMENDB_CACHE_LINE;
}

/* What is asked from the hooks for an aligned block: the same for the same size. */
static size_t memory_aligned_total(size_t size)
{
    return memory_add(size, memory_alignment(size) + sizeof(void *));
}

OMENDB_INTERNAL void *memory_alloc_aligned(struct memory *memory, size_t size)
{
    const size_t alignment = memory_alignment(size);
    char *raw = memory_get(memory, memory_aligned_total(size), 1);
    char *block;
    if (raw == NULL)
        return NULL;
    block = raw + sizeof(void *);
    block += (alignment - ((uintptr_t)block & (alignment - 1))) & (alignment - 1);
    memcpy(block - sizeof(void *), &raw, sizeof raw);
    if (alignment == MEMORY_HUGE_PAGE)
        platform_advise_huge(block, size);
    return block;
}

OMENDB_INTERNAL void memory_free_aligned(struct memory *memory, void *block, size_t size)
{
    void *raw;
    if (block == NULL)
        return;
    memcpy(&raw, (char *)block - sizeof(void *), sizeof raw);
    memory_free(memory, raw, memory_aligned_total(size));
}

#undef MEMORY_HUGE_PAGE
#undef MEMORY_HUGE_THRESHOLD

/* ==============================================================================================
 * sort.c
 * ============================================================================================== */

/* sort.c: introsort (Musser 1997): quicksort with the median of three, a heap once the recursion is
 * deeper than 2 log2(n), insertion for the last few.
 *
 * Rejected: qsort of the C library. That of glibc takes memory for large arrays, out of reach of
 * the allocator hooks and the limit. */

/* ==============================================================================================
 * sort.h
 * ============================================================================================== */

/* sort.h: sorting without memory. */
#ifndef OMENDB_SORT_H
#define OMENDB_SORT_H

#define SORT_MAX_SIZE 64 /* bytes of an item */

/* Sorts `count` items of `size` bytes ascending; not stable. compare: as for qsort of the C
 * library. At most about n log n comparisons, whatever the order was. */
OMENDB_INTERNAL void sort_array(void *items, size_t count, size_t size,
                                int (*compare)(const void *left, const void *right));

#endif

/* sort.c, continued */

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
    char moved[SORT_MAX_SIZE];
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

#undef SORT_FEW

/* ==============================================================================================
 * vfs_posix.c
 * ============================================================================================== */

/* vfs_posix.c: files and the clock of the operating system, behind omendb_vfs.
 *
 * A directory and a file are file descriptors, stored in the handle itself (the number plus one, as
 * descriptor 0 must not become NULL), so that this module needs no memory.
 *
 * Invariants:
 * - Everything happens relative to a held directory descriptor: renaming or replacing a parent
 *   directory by somebody else cannot lead a later call elsewhere. Names with '/' are refused, and
 *   symbolic links and things that are not regular files are not opened.
 * - Every function that fails leaves the reason in errno.
 * - fsync is never repeated: after a failure the kernel may have dropped the dirty pages and marked
 *   them clean, and a second call would report success (Rebello et al., "Can Applications Recover
 *   from fsync Failures?", USENIX ATC 2020).
 * - A directory that open_directory made is on the device before the call returns. A crash between
 *   making and syncing leaves an empty directory; so an empty one is synced again at the next open.
 *
 * Locks: of the open file description on Linux (F_OFD_SETLK); POSIX record locks are rejected,
 * because closing any descriptor of the file in the process drops them. Elsewhere flock.
 *
 * fdatasync is enough on Linux: it writes the file's size where reading back needs it. On macOS
 * fsync leaves data in the device's cache, F_FULLFSYNC does not. */

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/types.h>

#if defined(__linux__) && !defined(F_OFD_SETLK)
#error "include omendb.c before any system header, so that its feature macros take effect"
#endif

/* The most bytes of one call: below the limits of Linux (2^31 - 4096) and macOS (INT_MAX). */
#define VFS_POSIX_STEP ((size_t)1 << 30)

#if defined(ENODATA)
#define VFS_POSIX_TOO_SHORT ENODATA
#else
#define VFS_POSIX_TOO_SHORT EIO
#endif

static void *vfs_posix_handle(int descriptor)
{
    return (void *)((intptr_t)descriptor + 1);
}

static int vfs_posix_descriptor(const void *handle)
{
    return (int)((intptr_t)handle - 1);
}

static int vfs_posix_code(int system_error)
{
    switch (system_error) {
    case ENOSPC:
    case EFBIG:
#if defined(EDQUOT)
    case EDQUOT:
#endif
        return OMENDB_FULL;
    case EACCES:
    case EPERM:
    case EROFS:
        return OMENDB_PERMISSION;
    case ENOENT:
        return OMENDB_NOTFOUND;
    case EEXIST:
        return OMENDB_EXISTS;
    case ENOMEM:
        return OMENDB_NOMEM;
    default:
        return OMENDB_IOERR;
    }
}

/* The code for the call that just failed. */
static int vfs_posix_failed(void)
{
    return vfs_posix_code(errno);
}

static int vfs_posix_fail(int system_error)
{
    errno = system_error;
    return vfs_posix_code(system_error);
}

static int vfs_posix_name_is_legal(const char *name)
{
    return name[0] != '\0' && strchr(name, '/') == NULL;
}

static int vfs_posix_open_at(int directory, const char *name, int flags)
{
    int descriptor;
    do
        descriptor = openat(directory, name, flags | O_CLOEXEC, 0600);
    while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

/* After a failed call: closes without losing the reason. */
static void vfs_posix_discard(int descriptor)
{
    const int reason = errno;
    close(descriptor);
    errno = reason;
}

/* ------------------------------------------------------------------------------------------------
 * directories */

static int vfs_posix_sync_descriptor_of_directory(int descriptor)
{
    if (fsync(descriptor) == 0)
        return OMENDB_OK;
    /* A file system that cannot sync directories says so by EINVAL; it has no state to lose. */
    return errno == EINVAL ? OMENDB_OK : vfs_posix_failed();
}

static int vfs_posix_sync_parent(int directory)
{
    int status;
    const int parent = vfs_posix_open_at(directory, "..", O_RDONLY | O_DIRECTORY);
    if (parent < 0)
        return vfs_posix_failed();
    status = vfs_posix_sync_descriptor_of_directory(parent);
    vfs_posix_discard(parent);
    return status;
}

static int vfs_posix_list(void *context, void *directory,
                          int (*each)(void *argument, const char *name), void *argument)
{
    DIR *entries;
    struct dirent *entry;
    int status = OMENDB_OK;
    /* A descriptor of its own: the position in the directory belongs to the open description. */
    const int descriptor =
        vfs_posix_open_at(vfs_posix_descriptor(directory), ".", O_RDONLY | O_DIRECTORY);
    (void)context;
    if (descriptor < 0)
        return vfs_posix_failed();
    entries = fdopendir(descriptor);
    if (entries == NULL) {
        vfs_posix_discard(descriptor);
        return vfs_posix_failed();
    }
    while (status == OMENDB_OK) {
        errno = 0;
        entry = readdir(entries);
        if (entry == NULL) {
            status = errno == 0 ? OMENDB_OK : vfs_posix_failed();
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            status = each(argument, entry->d_name);
    }
    const int reason = errno;
    closedir(entries);
    errno = reason;
    return status;
}

static int vfs_posix_stop_listing(void *argument, const char *name)
{
    (void)argument;
    (void)name;
    return OMENDB_EXISTS;
}

/* A directory without entries may be one that was made but not synced. */
static int vfs_posix_sync_if_new(int descriptor)
{
    const int status =
        vfs_posix_list(NULL, vfs_posix_handle(descriptor), vfs_posix_stop_listing, NULL);
    if (status == OMENDB_EXISTS)
        return OMENDB_OK;
    return status != OMENDB_OK ? status : vfs_posix_sync_parent(descriptor);
}

static int vfs_posix_open_directory(void *context, const char *path, int create, void **directory)
{
    const int flags = O_RDONLY | O_DIRECTORY;
    int descriptor = vfs_posix_open_at(AT_FDCWD, path, flags);
    (void)context;
    *directory = NULL;
    if (descriptor < 0 && errno == ENOENT && create) {
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return vfs_posix_failed();
        descriptor = vfs_posix_open_at(AT_FDCWD, path, flags);
    }
    if (descriptor < 0)
        return errno == ENOTDIR ? OMENDB_FORMAT : vfs_posix_failed();
    if (create) {
        const int status = vfs_posix_sync_if_new(descriptor);
        if (status != OMENDB_OK) {
            vfs_posix_discard(descriptor);
            return status;
        }
    }
    *directory = vfs_posix_handle(descriptor);
    return OMENDB_OK;
}

static void vfs_posix_close_directory(void *context, void *directory)
{
    (void)context;
    close(vfs_posix_descriptor(directory));
}

static int vfs_posix_sync_directory(void *context, void *directory)
{
    (void)context;
    return vfs_posix_sync_descriptor_of_directory(vfs_posix_descriptor(directory));
}

static int vfs_posix_rename(void *context, void *directory, const char *from, const char *to)
{
    const int descriptor = vfs_posix_descriptor(directory);
    (void)context;
    if (!vfs_posix_name_is_legal(from) || !vfs_posix_name_is_legal(to))
        return vfs_posix_fail(EINVAL);
    return renameat(descriptor, from, descriptor, to) == 0 ? OMENDB_OK : vfs_posix_failed();
}

static int vfs_posix_unlink(void *context, void *directory, const char *name)
{
    (void)context;
    if (!vfs_posix_name_is_legal(name))
        return vfs_posix_fail(EINVAL);
    return unlinkat(vfs_posix_descriptor(directory), name, 0) == 0 ? OMENDB_OK : vfs_posix_failed();
}

static int vfs_posix_identity(void *context, void *directory, char *text, size_t capacity)
{
    struct stat facts;
    int length;
    (void)context;
    if (fstat(vfs_posix_descriptor(directory), &facts) != 0)
        return vfs_posix_failed();
    length = snprintf(text, capacity, "%llu:%llu", (unsigned long long)facts.st_dev,
                      (unsigned long long)facts.st_ino);
    return length > 0 && (size_t)length < capacity ? OMENDB_OK : vfs_posix_fail(ERANGE);
}

/* ------------------------------------------------------------------------------------------------
 * files */

static int vfs_posix_open(void *context, void *directory, const char *name, int flags, void **file)
{
    /* O_NONBLOCK: opening a pipe that somebody put there would wait for its other end. */
    int system_flags = O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
    int descriptor;
    struct stat facts;
    (void)context;
    *file = NULL;
    if (!vfs_posix_name_is_legal(name))
        return vfs_posix_fail(EINVAL);
    system_flags |= flags & OMENDB_OPEN_WRITE ? O_RDWR : O_RDONLY;
    system_flags |= flags & OMENDB_OPEN_CREATE ? O_CREAT : 0;
    system_flags |= flags & OMENDB_OPEN_EXCLUSIVE ? O_EXCL : 0;
    descriptor = vfs_posix_open_at(vfs_posix_descriptor(directory), name, system_flags);
    if (descriptor < 0)
        return vfs_posix_failed();
    if (fstat(descriptor, &facts) != 0) {
        vfs_posix_discard(descriptor);
        return vfs_posix_failed();
    }
    if (!S_ISREG(facts.st_mode)) {
        close(descriptor);
        return vfs_posix_fail(EINVAL);
    }
    *file = vfs_posix_handle(descriptor);
    return OMENDB_OK;
}

/* EINTR: the descriptor is gone all the same on Linux and macOS, and a second close could hit one
 * that another thread got meanwhile. */
static int vfs_posix_close(void *context, void *file)
{
    (void)context;
    return close(vfs_posix_descriptor(file)) == 0 || errno == EINTR ? OMENDB_OK
                                                                    : vfs_posix_failed();
}

static int vfs_posix_size(void *context, void *file, uint64_t *size)
{
    struct stat facts;
    (void)context;
    if (fstat(vfs_posix_descriptor(file), &facts) != 0)
        return vfs_posix_failed();
    *size = (uint64_t)facts.st_size;
    return OMENDB_OK;
}

/* The largest off_t; a position beyond it cannot be named in a call. */
static uint64_t vfs_posix_largest_offset(void)
{
    return (UINT64_C(1) << (sizeof(off_t) * CHAR_BIT - 1)) - 1;
}

static int vfs_posix_range_is_legal(uint64_t offset, uint64_t size)
{
    return size <= vfs_posix_largest_offset() && offset <= vfs_posix_largest_offset() - size;
}

static int vfs_posix_read(void *context, void *file, uint64_t offset, void *buffer, size_t size)
{
    char *bytes = buffer;
    (void)context;
    if (!vfs_posix_range_is_legal(offset, size))
        return vfs_posix_fail(EOVERFLOW);
    while (size > 0) {
        const size_t step = size < VFS_POSIX_STEP ? size : VFS_POSIX_STEP;
        const ssize_t done = pread(vfs_posix_descriptor(file), bytes, step, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return vfs_posix_failed();
        if (done == 0)
            return vfs_posix_fail(VFS_POSIX_TOO_SHORT);
        bytes += done;
        offset += (uint64_t)done;
        size -= (size_t)done;
    }
    return OMENDB_OK;
}

static int vfs_posix_write(void *context, void *file, uint64_t offset, const void *buffer,
                           size_t size)
{
    const char *bytes = buffer;
    (void)context;
    if (!vfs_posix_range_is_legal(offset, size))
        return vfs_posix_fail(EFBIG);
    while (size > 0) {
        const size_t step = size < VFS_POSIX_STEP ? size : VFS_POSIX_STEP;
        const ssize_t done = pwrite(vfs_posix_descriptor(file), bytes, step, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return vfs_posix_failed();
        if (done == 0)
            return vfs_posix_fail(EIO);
        bytes += done;
        offset += (uint64_t)done;
        size -= (size_t)done;
    }
    return OMENDB_OK;
}

static int vfs_posix_truncate(void *context, void *file, uint64_t size)
{
    int failed;
    (void)context;
    if (!vfs_posix_range_is_legal(0, size))
        return vfs_posix_fail(EFBIG);
    do
        failed = ftruncate(vfs_posix_descriptor(file), (off_t)size);
    while (failed && errno == EINTR);
    return failed ? vfs_posix_failed() : OMENDB_OK;
}

/* Extends without reserving, for file systems that cannot reserve; never shortens. */
static int vfs_posix_extend(void *context, void *file, uint64_t size)
{
    uint64_t present = 0;
    const int status = vfs_posix_size(context, file, &present);
    if (status != OMENDB_OK || present >= size)
        return status;
    return vfs_posix_truncate(context, file, size);
}

/* Rejected: glibc's posix_fallocate, which writes into every block where the system call is not
 * supported, and races with writers while it does. */
static int vfs_posix_allocate(void *context, void *file, uint64_t size)
{
    if (!vfs_posix_range_is_legal(0, size))
        return vfs_posix_fail(EFBIG);
    if (size == 0)
        return OMENDB_OK;
#if defined(__linux__)
    int failed;
    do
        failed = fallocate(vfs_posix_descriptor(file), 0, 0, (off_t)size);
    while (failed && errno == EINTR);
    if (!failed)
        return OMENDB_OK;
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
        return vfs_posix_failed();
#elif defined(__APPLE__)
    fstore_t wanted = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, 0, 0};
    uint64_t present = 0;
    const int status = vfs_posix_size(context, file, &present);
    if (status != OMENDB_OK || present >= size)
        return status;
    wanted.fst_length = (off_t)(size - present);
    if (fcntl(vfs_posix_descriptor(file), F_PREALLOCATE, &wanted) != 0 && errno == ENOSPC)
        return vfs_posix_failed();
#endif
    return vfs_posix_extend(context, file, size);
}

static int vfs_posix_sync(void *context, void *file)
{
    const int descriptor = vfs_posix_descriptor(file);
    (void)context;
#if defined(__linux__)
    return fdatasync(descriptor) == 0 ? OMENDB_OK : vfs_posix_failed();
#elif defined(__APPLE__)
    if (fcntl(descriptor, F_FULLFSYNC) == 0)
        return OMENDB_OK;
    /* A file system without the command; fsync is then all that there is. */
    if (errno != ENOTSUP && errno != ENOTTY && errno != EINVAL)
        return vfs_posix_failed();
    return fsync(descriptor) == 0 ? OMENDB_OK : vfs_posix_failed();
#else
    return fsync(descriptor) == 0 ? OMENDB_OK : vfs_posix_failed();
#endif
}

/* ------------------------------------------------------------------------------------------------
 * mapping */

static int vfs_posix_map(void *context, void *file, uint64_t size, const void **address)
{
    uint64_t present = 0;
    void *mapped;
    const int status = vfs_posix_size(context, file, &present);
    *address = NULL;
    if (status != OMENDB_OK)
        return status;
    if (size == 0 || size > SIZE_MAX)
        return vfs_posix_fail(EINVAL);
    /* Pages past the end could be mapped, but touching them is a fault. */
    if (size > present)
        return vfs_posix_fail(VFS_POSIX_TOO_SHORT);
    mapped = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, vfs_posix_descriptor(file), 0);
    if (mapped == MAP_FAILED)
        return errno == ENODEV ? OMENDB_UNSUPPORTED : vfs_posix_failed();
    *address = mapped;
    return OMENDB_OK;
}

/* The system calls take no const; the pages stay readable only. */
static void vfs_posix_unmap(void *context, const void *address, uint64_t size)
{
    (void)context;
    munmap((void *)(uintptr_t)address, (size_t)size);
}

static void vfs_posix_advise(void *context, const void *address, uint64_t size, int advice)
{
    static const int system_advice[] = {
        [OMENDB_ADVISE_RANDOM] = MADV_RANDOM,
        [OMENDB_ADVISE_SEQUENTIAL] = MADV_SEQUENTIAL,
        [OMENDB_ADVISE_WILLNEED] = MADV_WILLNEED,
        [OMENDB_ADVISE_DONTNEED] = MADV_DONTNEED,
    };
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = (uintptr_t)address & ~(page - 1);
    (void)context;
    if (advice < OMENDB_ADVISE_RANDOM || advice > OMENDB_ADVISE_DONTNEED)
        return;
    madvise((void *)first, (size_t)((uintptr_t)address + size - first), system_advice[advice]);
}

/* ------------------------------------------------------------------------------------------------
 * locks and the clock */

static int vfs_posix_lock(void *context, void *file, int lock)
{
    const int descriptor = vfs_posix_descriptor(file);
    int failed;
    (void)context;
#if defined(__linux__)
    struct flock whole;
    memset(&whole, 0, sizeof whole);
    whole.l_type = lock == OMENDB_LOCK_EXCLUSIVE ? F_WRLCK
                   : lock == OMENDB_LOCK_SHARED  ? F_RDLCK
                                                 : F_UNLCK;
    whole.l_whence = SEEK_SET;
    failed = fcntl(descriptor, F_OFD_SETLK, &whole);
#else
    failed = flock(descriptor, (lock == OMENDB_LOCK_EXCLUSIVE ? LOCK_EX
                                : lock == OMENDB_LOCK_SHARED  ? LOCK_SH
                                                              : LOCK_UN) |
                                   LOCK_NB);
#endif
    if (!failed)
        return OMENDB_OK;
    return errno == EAGAIN || errno == EACCES || errno == EWOULDBLOCK ? OMENDB_BUSY
                                                                      : vfs_posix_failed();
}

static uint64_t vfs_posix_now_us(void *context)
{
    struct timespec now = {0, 0};
    (void)context;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

OMENDB_API const omendb_vfs *omendb_default_vfs(void)
{
    static const omendb_vfs vfs = {
        .struct_size = sizeof(omendb_vfs),
        .open_directory = vfs_posix_open_directory,
        .close_directory = vfs_posix_close_directory,
        .sync_directory = vfs_posix_sync_directory,
        .list = vfs_posix_list,
        .rename = vfs_posix_rename,
        .unlink = vfs_posix_unlink,
        .open = vfs_posix_open,
        .close = vfs_posix_close,
        .size = vfs_posix_size,
        .read = vfs_posix_read,
        .write = vfs_posix_write,
        .truncate = vfs_posix_truncate,
        .allocate = vfs_posix_allocate,
        .sync = vfs_posix_sync,
        .map = vfs_posix_map,
        .unmap = vfs_posix_unmap,
        .advise = vfs_posix_advise,
        .lock = vfs_posix_lock,
        .identity = vfs_posix_identity,
        .now_us = vfs_posix_now_us,
    };
    return &vfs;
}

#undef VFS_POSIX_STEP
#undef VFS_POSIX_TOO_SHORT

/* ==============================================================================================
 * vfs_memory.c
 * ============================================================================================== */

/* vfs_memory.c: a vfs whose files live in memory, for ":memory:".
 *
 * There is one directory, whatever path is opened. Files are a linked list: a database has few, and
 * an idle collection has none.
 *
 * Invariants:
 * - The mutex guards the list, and every field of files and handles. `each` of a listing runs
 *   outside it, while a reference keeps the entry that the listing stands on.
 * - A file goes when nothing refers to it: the name (`linked`), handles, mappings, a listing.
 * - The bytes in [size, capacity) are zero, so that extending costs nothing.
 * - The bytes of a mapped file neither move nor change: writing, truncating and allocating fail
 *   with ETXTBSY. Searches read mapped bytes without a lock.
 * - Buffers come aligned and zeroed, so that mapped bytes are as well placed as a system's mapping
 *   for the distance kernels.
 *
 * Rejected: handing out a copy for a mapping (twice the memory), and pages in a table (a mapping
 * must be one run of bytes). A writer that knows the size calls allocate first, and nothing is ever
 * copied. */

struct vfs_memory_file {
    struct vfs_memory_file *next;
    struct vfs_memory_handle *handles;
    uint8_t *bytes;
    uint64_t size;
    size_t capacity;
    uint64_t mappings;
    uint64_t listings; /* that stand on this file */
    int linked;
    char *name;
};

struct vfs_memory_handle {
    struct vfs_memory_handle *next; /* of the same file */
    struct vfs_memory_file *file;
    int flags;
    int lock;
};

struct vfs_memory {
    struct memory *memory;
    struct platform_mutex mutex;
    struct vfs_memory_file *files;
};

static int vfs_memory_fail(int code, int system_error)
{
    errno = system_error;
    return code;
}

/* ------------------------------------------------------------------------------------------------
 * files and their life; all with the mutex held */

static struct vfs_memory_file *vfs_memory_find(struct vfs_memory *vfs, const char *name)
{
    struct vfs_memory_file *file = vfs->files;
    while (file != NULL && !(file->linked && strcmp(file->name, name) == 0))
        file = file->next;
    return file;
}

static void vfs_memory_destroy_file(struct vfs_memory *vfs, struct vfs_memory_file *file)
{
    while (file->handles != NULL) {
        struct vfs_memory_handle *handle = file->handles;
        file->handles = handle->next;
        memory_free(vfs->memory, handle, sizeof *handle);
    }
    memory_free_aligned(vfs->memory, file->bytes, file->capacity);
    memory_free(vfs->memory, file->name, strlen(file->name) + 1);
    memory_free(vfs->memory, file, sizeof *file);
}

static void vfs_memory_release_unused(struct vfs_memory *vfs, struct vfs_memory_file *file)
{
    struct vfs_memory_file **link = &vfs->files;
    if (file->linked || file->handles != NULL || file->mappings != 0 || file->listings != 0)
        return;
    while (*link != file)
        link = &(*link)->next;
    *link = file->next;
    vfs_memory_destroy_file(vfs, file);
}

static char *vfs_memory_copy_name(struct vfs_memory *vfs, const char *name)
{
    const size_t size = strlen(name) + 1;
    char *copy = memory_alloc(vfs->memory, size);
    if (copy != NULL)
        memcpy(copy, name, size);
    return copy;
}

static struct vfs_memory_file *vfs_memory_create_file(struct vfs_memory *vfs, const char *name)
{
    struct vfs_memory_file *file = memory_zalloc(vfs->memory, sizeof *file);
    if (file == NULL)
        return NULL;
    file->name = vfs_memory_copy_name(vfs, name);
    if (file->name == NULL) {
        memory_free(vfs->memory, file, sizeof *file);
        return NULL;
    }
    file->linked = 1;
    file->next = vfs->files;
    vfs->files = file;
    return file;
}

/* Makes room for exactly `capacity` bytes. */
static int vfs_memory_reserve(struct vfs_memory *vfs, struct vfs_memory_file *file, size_t capacity)
{
    uint8_t *bytes;
    if (capacity <= file->capacity)
        return OMENDB_OK;
    bytes = memory_alloc_aligned(vfs->memory, capacity);
    if (bytes == NULL)
        return vfs_memory_fail(OMENDB_NOMEM, ENOMEM);
    if (file->size > 0)
        memcpy(bytes, file->bytes, (size_t)file->size);
    memory_free_aligned(vfs->memory, file->bytes, file->capacity);
    file->bytes = bytes;
    file->capacity = capacity;
    return OMENDB_OK;
}

static int vfs_memory_check_writable(const struct vfs_memory_handle *handle)
{
    if (!(handle->flags & OMENDB_OPEN_WRITE))
        return vfs_memory_fail(OMENDB_IOERR, EBADF);
    if (handle->file->mappings != 0)
        return vfs_memory_fail(OMENDB_IOERR, ETXTBSY);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------------------------------------
 * the directory */

static int vfs_memory_open_directory(void *context, const char *path, int create, void **directory)
{
    (void)path;
    (void)create;
    *directory = context;
    return OMENDB_OK;
}

static void vfs_memory_close_directory(void *context, void *directory)
{
    (void)context;
    (void)directory;
}

static int vfs_memory_sync_directory(void *context, void *directory)
{
    (void)context;
    (void)directory;
    return OMENDB_OK;
}

static int vfs_memory_list(void *context, void *directory,
                           int (*each)(void *argument, const char *name), void *argument)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_file *file, *next;
    char name[256];
    int status = OMENDB_OK;
    (void)directory;
    platform_mutex_lock(&vfs->mutex);
    for (file = vfs->files; file != NULL && status == OMENDB_OK; file = next) {
        if (file->linked) {
            /* A copy: `each` may rename the file. */
            memcpy(name, file->name, strlen(file->name) + 1);
            file->listings++;
            platform_mutex_unlock(&vfs->mutex);
            status = each(argument, name);
            platform_mutex_lock(&vfs->mutex);
            file->listings--;
        }
        next = file->next;
        vfs_memory_release_unused(vfs, file);
    }
    platform_mutex_unlock(&vfs->mutex);
    return status;
}

static int vfs_memory_unlink(void *context, void *directory, const char *name)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_file *file;
    (void)directory;
    platform_mutex_lock(&vfs->mutex);
    file = vfs_memory_find(vfs, name);
    if (file != NULL) {
        file->linked = 0;
        vfs_memory_release_unused(vfs, file);
    }
    platform_mutex_unlock(&vfs->mutex);
    return file != NULL ? OMENDB_OK : vfs_memory_fail(OMENDB_NOTFOUND, ENOENT);
}

/* With the mutex held. */
static int vfs_memory_rename_locked(struct vfs_memory *vfs, const char *from, const char *to)
{
    struct vfs_memory_file *file = vfs_memory_find(vfs, from);
    struct vfs_memory_file *replaced = vfs_memory_find(vfs, to);
    char *name;
    if (file == NULL)
        return vfs_memory_fail(OMENDB_NOTFOUND, ENOENT);
    if (file == replaced)
        return OMENDB_OK;
    name = vfs_memory_copy_name(vfs, to);
    if (name == NULL)
        return vfs_memory_fail(OMENDB_NOMEM, ENOMEM);
    memory_free(vfs->memory, file->name, strlen(file->name) + 1);
    file->name = name;
    if (replaced != NULL) {
        replaced->linked = 0;
        vfs_memory_release_unused(vfs, replaced);
    }
    return OMENDB_OK;
}

static int vfs_memory_rename(void *context, void *directory, const char *from, const char *to)
{
    struct vfs_memory *vfs = context;
    int status;
    (void)directory;
    if (strlen(to) > 255)
        return vfs_memory_fail(OMENDB_IOERR, ENAMETOOLONG);
    platform_mutex_lock(&vfs->mutex);
    status = vfs_memory_rename_locked(vfs, from, to);
    platform_mutex_unlock(&vfs->mutex);
    return status;
}

/* Each in-memory database is a directory of its own. */
static int vfs_memory_identity(void *context, void *directory, char *text, size_t capacity)
{
    const int length =
        snprintf(text, capacity, "memory:%" PRIxPTR, (uintptr_t)(const void *)context);
    (void)directory;
    if (length <= 0 || (size_t)length >= capacity)
        return vfs_memory_fail(OMENDB_IOERR, ERANGE);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------------------------------------
 * handles */

/* With the mutex held. */
static int vfs_memory_open_locked(struct vfs_memory *vfs, const char *name, int flags,
                                  struct vfs_memory_handle **opened)
{
    struct vfs_memory_file *file = vfs_memory_find(vfs, name);
    struct vfs_memory_handle *handle;
    if (file == NULL && !(flags & OMENDB_OPEN_CREATE))
        return vfs_memory_fail(OMENDB_NOTFOUND, ENOENT);
    if (file != NULL && (flags & OMENDB_OPEN_CREATE) && (flags & OMENDB_OPEN_EXCLUSIVE))
        return vfs_memory_fail(OMENDB_EXISTS, EEXIST);
    handle = memory_zalloc(vfs->memory, sizeof *handle);
    if (handle == NULL)
        return vfs_memory_fail(OMENDB_NOMEM, ENOMEM);
    if (file == NULL)
        file = vfs_memory_create_file(vfs, name);
    if (file == NULL) {
        memory_free(vfs->memory, handle, sizeof *handle);
        return vfs_memory_fail(OMENDB_NOMEM, ENOMEM);
    }
    handle->file = file;
    handle->flags = flags;
    handle->next = file->handles;
    file->handles = handle;
    *opened = handle;
    return OMENDB_OK;
}

static int vfs_memory_open(void *context, void *directory, const char *name, int flags, void **file)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_handle *handle = NULL;
    int status;
    (void)directory;
    *file = NULL;
    if (strlen(name) > 255)
        return vfs_memory_fail(OMENDB_IOERR, ENAMETOOLONG);
    platform_mutex_lock(&vfs->mutex);
    status = vfs_memory_open_locked(vfs, name, flags, &handle);
    platform_mutex_unlock(&vfs->mutex);
    *file = handle;
    return status;
}

static int vfs_memory_close(void *context, void *file)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_handle *handle = file;
    struct vfs_memory_handle **link;
    platform_mutex_lock(&vfs->mutex);
    for (link = &handle->file->handles; *link != handle; link = &(*link)->next) {
    }
    *link = handle->next;
    vfs_memory_release_unused(vfs, handle->file);
    memory_free(vfs->memory, handle, sizeof *handle);
    platform_mutex_unlock(&vfs->mutex);
    return OMENDB_OK;
}

static int vfs_memory_lock(void *context, void *file, int lock)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_handle *handle = file;
    int taken = 0;
    platform_mutex_lock(&vfs->mutex);
    for (const struct vfs_memory_handle *other = handle->file->handles; other != NULL;
         other = other->next) {
        if (other != handle && lock != OMENDB_LOCK_NONE && other->lock != OMENDB_LOCK_NONE)
            taken |= lock == OMENDB_LOCK_EXCLUSIVE || other->lock == OMENDB_LOCK_EXCLUSIVE;
    }
    if (!taken)
        handle->lock = lock;
    platform_mutex_unlock(&vfs->mutex);
    return taken ? vfs_memory_fail(OMENDB_BUSY, EAGAIN) : OMENDB_OK;
}

/* ------------------------------------------------------------------------------------------------
 * bytes */

static int vfs_memory_size(void *context, void *file, uint64_t *size)
{
    struct vfs_memory *vfs = context;
    const struct vfs_memory_handle *handle = file;
    platform_mutex_lock(&vfs->mutex);
    *size = handle->file->size;
    platform_mutex_unlock(&vfs->mutex);
    return OMENDB_OK;
}

static int vfs_memory_read(void *context, void *file, uint64_t offset, void *buffer, size_t size)
{
    struct vfs_memory *vfs = context;
    const struct vfs_memory_file *source = ((const struct vfs_memory_handle *)file)->file;
    int inside;
    platform_mutex_lock(&vfs->mutex);
    inside = offset <= source->size && size <= source->size - offset;
    if (inside && size > 0)
        memcpy(buffer, source->bytes + offset, size);
    platform_mutex_unlock(&vfs->mutex);
    return inside ? OMENDB_OK : vfs_memory_fail(OMENDB_IOERR, EIO);
}

/* Grows by half, so that a file written piece by piece is copied a bounded number of times. */
static int vfs_memory_reserve_for_write(struct vfs_memory *vfs, struct vfs_memory_file *file,
                                        size_t end)
{
    size_t capacity = memory_add(file->capacity, file->capacity / 2);
    if (end <= file->capacity)
        return OMENDB_OK;
    capacity = capacity < 4096 ? 4096 : capacity;
    return vfs_memory_reserve(vfs, file, capacity < end ? end : capacity);
}

static int vfs_memory_write(void *context, void *file, uint64_t offset, const void *buffer,
                            size_t size)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_handle *handle = file;
    struct vfs_memory_file *target = handle->file;
    int status;
    if (offset > SIZE_MAX - size)
        return vfs_memory_fail(OMENDB_FULL, EFBIG);
    platform_mutex_lock(&vfs->mutex);
    status = vfs_memory_check_writable(handle);
    if (status == OMENDB_OK)
        status = vfs_memory_reserve_for_write(vfs, target, (size_t)offset + size);
    if (status == OMENDB_OK && size > 0) {
        memcpy(target->bytes + offset, buffer, size);
        if (offset + size > target->size)
            target->size = offset + size;
    }
    platform_mutex_unlock(&vfs->mutex);
    return status;
}

/* With the mutex held. */
static int vfs_memory_resize(struct vfs_memory *vfs, struct vfs_memory_handle *handle,
                             uint64_t size, int may_shrink)
{
    struct vfs_memory_file *file = handle->file;
    int status = vfs_memory_check_writable(handle);
    if (status != OMENDB_OK)
        return status;
    if (size > file->size) {
        status = vfs_memory_reserve(vfs, file, (size_t)size);
        if (status == OMENDB_OK)
            file->size = size;
    } else if (may_shrink && size < file->size) {
        memset(file->bytes + size, 0, (size_t)(file->size - size));
        file->size = size;
    }
    return status;
}

static int vfs_memory_set_size(void *context, void *file, uint64_t size, int may_shrink)
{
    struct vfs_memory *vfs = context;
    int status;
    if (size > SIZE_MAX)
        return vfs_memory_fail(OMENDB_FULL, EFBIG);
    platform_mutex_lock(&vfs->mutex);
    status = vfs_memory_resize(vfs, file, size, may_shrink);
    platform_mutex_unlock(&vfs->mutex);
    return status;
}

static int vfs_memory_truncate(void *context, void *file, uint64_t size)
{
    return vfs_memory_set_size(context, file, size, 1);
}

static int vfs_memory_allocate(void *context, void *file, uint64_t size)
{
    return vfs_memory_set_size(context, file, size, 0);
}

static int vfs_memory_sync(void *context, void *file)
{
    (void)context;
    (void)file;
    return OMENDB_OK;
}

static int vfs_memory_map(void *context, void *file, uint64_t size, const void **address)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_file *source = ((struct vfs_memory_handle *)file)->file;
    int inside;
    *address = NULL;
    platform_mutex_lock(&vfs->mutex);
    inside = size > 0 && size <= source->size;
    if (inside) {
        source->mappings++;
        *address = source->bytes;
    }
    platform_mutex_unlock(&vfs->mutex);
    return inside ? OMENDB_OK : vfs_memory_fail(OMENDB_IOERR, EINVAL);
}

static void vfs_memory_unmap(void *context, const void *address, uint64_t size)
{
    struct vfs_memory *vfs = context;
    struct vfs_memory_file *file;
    (void)size;
    platform_mutex_lock(&vfs->mutex);
    for (file = vfs->files; file != NULL && file->bytes != address; file = file->next) {
    }
    if (file != NULL && file->mappings > 0) {
        file->mappings--;
        vfs_memory_release_unused(vfs, file);
    }
    platform_mutex_unlock(&vfs->mutex);
}

static void vfs_memory_advise(void *context, const void *address, uint64_t size, int advice)
{
    (void)context;
    (void)address;
    (void)size;
    (void)advice;
}

static uint64_t vfs_memory_now_us(void *context)
{
    const omendb_vfs *system = omendb_default_vfs();
    (void)context;
    return system->now_us(system->context);
}

/* ------------------------------------------------------------------------------------------------
 * making and unmaking */

OMENDB_INTERNAL int vfs_memory_create(struct memory *memory, omendb_vfs *vfs)
{
    static const omendb_vfs functions = {
        .struct_size = sizeof(omendb_vfs),
        .open_directory = vfs_memory_open_directory,
        .close_directory = vfs_memory_close_directory,
        .sync_directory = vfs_memory_sync_directory,
        .list = vfs_memory_list,
        .rename = vfs_memory_rename,
        .unlink = vfs_memory_unlink,
        .open = vfs_memory_open,
        .close = vfs_memory_close,
        .size = vfs_memory_size,
        .read = vfs_memory_read,
        .write = vfs_memory_write,
        .truncate = vfs_memory_truncate,
        .allocate = vfs_memory_allocate,
        .sync = vfs_memory_sync,
        .map = vfs_memory_map,
        .unmap = vfs_memory_unmap,
        .advise = vfs_memory_advise,
        .lock = vfs_memory_lock,
        .identity = vfs_memory_identity,
        .now_us = vfs_memory_now_us,
    };
    struct vfs_memory *state = memory_zalloc(memory, sizeof *state);
    if (state == NULL)
        return OMENDB_NOMEM;
    if (platform_mutex_init(&state->mutex) != OMENDB_OK) {
        memory_free(memory, state, sizeof *state);
        return OMENDB_NOMEM;
    }
    state->memory = memory;
    *vfs = functions;
    vfs->context = state;
    return OMENDB_OK;
}

/* Frees everything, open handles and mappings included. */
OMENDB_INTERNAL void vfs_memory_destroy(omendb_vfs *vfs)
{
    struct vfs_memory *state = vfs->context;
    if (state == NULL)
        return;
    while (state->files != NULL) {
        struct vfs_memory_file *file = state->files;
        state->files = file->next;
        vfs_memory_destroy_file(state, file);
    }
    platform_mutex_destroy(&state->mutex);
    memory_free(state->memory, state, sizeof *state);
    vfs->context = NULL;
}

/* ==============================================================================================
 * cpu.c
 * ============================================================================================== */

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

/* ==============================================================================================
 * cpu.h
 * ============================================================================================== */

/* cpu.h: what the processor and the operating system together allow. */
#ifndef OMENDB_CPU_H
#define OMENDB_CPU_H

#include <stdbool.h>

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

/* cpu.c, continued */

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

/* ==============================================================================================
 * scalar.c
 * ============================================================================================== */

/* scalar.c: sizes, validation and conversion of vectors.
 *
 * Invariant: a vector that scalar_convert accepted gives finite distances in every kernel. For that
 * its elements are finite, and its squared norm, taken in double over the values as stored, is at
 * most FLT_MAX / 4 under L2 and inner product (|a - b|^2 <= 2|a|^2 + 2|b|^2, and |a.b| <= |a||b|),
 * and between FLT_MIN and FLT_MAX under cosine, where a zero vector has no direction and a
 * subnormal square has lost its digits. Kernels therefore test for nothing.
 *
 * Vectors are worked on in runs of 64 elements: widen to f32, check, narrow, widen what was stored,
 * add to the norm. Every one of the six types is exact in f32, so the pairs of types need 6 + 6
 * loops and not 36, and each loop is simple enough for a compiler to vectorize.
 *
 * Rejected: conversion by F16C or AVX-512 instructions. Conversion happens once a vector, next to
 * microseconds of other work. Also rejected: rint(), a call for each element without SSE4.1; adding
 * and subtracting 1.5 * 2^52 rounds a double to nearest even by itself. */

/* ==============================================================================================
 * scalar.h
 * ============================================================================================== */

/* scalar.h: the element types of vectors, and conversion between the user's and the stored one. */
#ifndef OMENDB_SCALAR_H
#define OMENDB_SCALAR_H

/* How a collection stores its vectors. */
struct scalar_format {
    omendb_scalar scalar;
    omendb_metric metric;
    size_t dim;  /* elements; bits for OMENDB_B1 */
    float scale; /* i8 and u8: stored = round(value * scale), saturated; finite and above 0 */
};

/* Bytes of one vector; for OMENDB_B1 (dim + 7) / 8. */
OMENDB_INTERNAL size_t scalar_bytes(omendb_scalar scalar, size_t dim);

/* Converts one vector of `from_type` at `from` into the stored format at `out`.
 *
 * from:     dim elements of any alignment; must not overlap `out`.
 * out:      scalar_bytes(to->scalar, to->dim) bytes; of undefined content on failure.
 * reason:   on failure a static fragment that completes "the vector ..." or "element N ...".
 * position: on failure the element, or SIZE_MAX when the reason concerns the whole vector.
 * Returns:  OMENDB_OK or OMENDB_INVALID. */
OMENDB_INTERNAL int scalar_convert(const struct scalar_format *to, const void *from,
                                   omendb_scalar from_type, void *out, const char **reason,
                                   size_t *position);

/* Converts a stored vector into `to_type` at `out`.
 *
 * The same type is a copy (i8 and u8 in stored units). OMENDB_F32 always works: integers are
 * divided by the scale, bits become 0 and 1. Another type works where no value can be lost: i8 and
 * u8 of scale 1 into f16 and bf16, bits into every type. Returns:  OMENDB_OK or OMENDB_INVALID, and
 * then `out` is untouched. */
OMENDB_INTERNAL int scalar_export(const struct scalar_format *format, const void *stored,
                                  omendb_scalar to_type, void *out);

/* Elements [begin, begin + count) of a stored vector as f32, integers in stored units; count is at
 * most SCALAR_RUN. */
#define SCALAR_RUN 64
OMENDB_INTERNAL void scalar_widen(omendb_scalar type, const void *vector, size_t begin,
                                  size_t count, float *out);

/* What a kernel's distance over stored vectors is multiplied by to be in the user's units:
 * 1 / scale^2 for squared L2 and inner product of i8 and u8, else 1. */
OMENDB_INTERNAL float scalar_distance_factor(const struct scalar_format *format);

/* IEEE 754 binary16 and bfloat16. To the narrow type: to nearest, ties to even; too large values
 * become infinity; NaN stays NaN. */
OMENDB_INTERNAL float scalar_f16_to_f32(uint16_t half);
OMENDB_INTERNAL uint16_t scalar_f32_to_f16(float value);
OMENDB_INTERNAL float scalar_bf16_to_f32(uint16_t half);
OMENDB_INTERNAL uint16_t scalar_f32_to_bf16(float value);

#endif

/* scalar.c, continued */

#include <float.h>
#include <math.h>

#if defined(__FAST_MATH__)
#error "OmenDB refuses NaN and infinity and rounds exactly; compile it without -ffast-math"
#endif

static const char scalar_reason_infinite[] = "is NaN or infinite";
static const char scalar_reason_bits[] =
    "is packed bits, which only a collection of bits under Hamming takes";
static const char scalar_reason_f16[] = "does not fit f16 (largest value 65504)";
static const char scalar_reason_bf16[] = "does not fit bf16 (largest value 3.3895e38)";
static const char scalar_reason_zero[] = "is zero, which has no direction under cosine";
static const char scalar_reason_tiny[] = "has a norm that underflows (smallest 1.0842e-19)";
static const char scalar_reason_huge[] = "has a norm that overflows (largest 9.2e18)";
static const char scalar_reason_type[] = "has an unknown element type";

static float scalar_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t scalar_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The magnitude moved to the place of f32's needs 112 added to its exponent; a subnormal one is
 * read as 2^-14 + m * 2^-24 and the 2^-14 taken off again, so that no f32 subnormal occurs, which a
 * program may have told its processor to flush to zero. */
OMENDB_INTERNAL float scalar_f16_to_f32(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    const uint32_t infinite = magnitude >= (0x7c00u << 13) ? 0x7f800000u : 0;
    const float subnormal = scalar_from_bits(magnitude + 0x38800000u) - 0x1p-14f;
    const uint32_t normal = (magnitude + 0x38000000u) | infinite;

    return scalar_from_bits((magnitude < (0x0400u << 13) ? scalar_to_bits(subnormal) : normal) |
                            sign);
}

OMENDB_INTERNAL uint16_t scalar_f32_to_f16(float value)
{
    const uint32_t bits = scalar_to_bits(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;

    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (magnitude >= 0x477ff000u) { /* 65520, halfway to what would be 65536 */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude <
        0x38800000u) { /* subnormal: adding 1/2 leaves units of 2^-24, rounded by the FPU */
        const float shifted = scalar_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (scalar_to_bits(shifted) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13));
}

OMENDB_INTERNAL float scalar_bf16_to_f32(uint16_t half)
{
    return scalar_from_bits((uint32_t)half << 16);
}

OMENDB_INTERNAL uint16_t scalar_f32_to_bf16(float value)
{
    const uint32_t bits = scalar_to_bits(value);

    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(bits >> 16 | 0x0040u);
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

OMENDB_INTERNAL size_t scalar_bytes(omendb_scalar scalar, size_t dim)
{
    switch (scalar) {
    case OMENDB_F32:
        return dim * 4;
    case OMENDB_F16:
    case OMENDB_BF16:
        return dim * 2;
    case OMENDB_I8:
    case OMENDB_U8:
        return dim;
    case OMENDB_B1:
        return (dim + 7) / 8;
    }
    return 0;
}

static uint16_t scalar_load16(const unsigned char *from, size_t i)
{
    uint16_t half;
    memcpy(&half, from + 2 * i, sizeof half);
    return half;
}

static void scalar_store16(unsigned char *out, size_t i, uint16_t half)
{
    memcpy(out + 2 * i, &half, sizeof half);
}

OMENDB_INTERNAL void scalar_widen(omendb_scalar type, const void *vector, size_t begin,
                                  size_t count, float *out)
{
    const unsigned char *from = vector;
    size_t i;

    switch (type) {
    case OMENDB_F32:
        memcpy(out, from + 4 * begin, 4 * count);
        break;
    case OMENDB_F16:
        for (i = 0; i < count; i++) {
            out[i] = scalar_f16_to_f32(scalar_load16(from, begin + i));
        }
        break;
    case OMENDB_BF16:
        for (i = 0; i < count; i++) {
            out[i] = scalar_bf16_to_f32(scalar_load16(from, begin + i));
        }
        break;
    case OMENDB_I8:
        for (i = 0; i < count; i++) {
            out[i] = (float)(int8_t)from[begin + i];
        }
        break;
    case OMENDB_U8:
        for (i = 0; i < count; i++) {
            out[i] = (float)from[begin + i];
        }
        break;
    case OMENDB_B1:
        for (i = 0; i < count; i++) {
            out[i] = (float)(from[(begin + i) / 8] >> ((begin + i) % 8) & 1);
        }
        break;
    }
}

/* value * scale, saturated to [low, high] and rounded to the nearest even integer. */
static double scalar_quantize(float value, double scale, double low, double high)
{
    const double scaled = (double)value * scale;
    const double saturated = scaled < low ? low : scaled > high ? high : scaled;

    return saturated + 0x1.8p52 - 0x1.8p52;
}

/* The reverse of scalar_widen for finite values; begin is a multiple of 8. */
static void scalar_narrow(const struct scalar_format *to, const float *values, size_t begin,
                          size_t count, unsigned char *out)
{
    size_t i;

    switch (to->scalar) {
    case OMENDB_F32:
        memcpy(out + 4 * begin, values, 4 * count);
        break;
    case OMENDB_F16:
        for (i = 0; i < count; i++) {
            scalar_store16(out, begin + i, scalar_f32_to_f16(values[i]));
        }
        break;
    case OMENDB_BF16:
        for (i = 0; i < count; i++) {
            scalar_store16(out, begin + i, scalar_f32_to_bf16(values[i]));
        }
        break;
    case OMENDB_I8:
        for (i = 0; i < count; i++) {
            const double stored = scalar_quantize(values[i], (double)to->scale, -128, 127);
            out[begin + i] = (unsigned char)(int8_t)stored;
        }
        break;
    case OMENDB_U8:
        for (i = 0; i < count; i++) {
            const double stored = scalar_quantize(values[i], (double)to->scale, 0, 255);
            out[begin + i] = (unsigned char)stored;
        }
        break;
    case OMENDB_B1:
        memset(out + begin / 8, 0, (count + 7) / 8);
        for (i = 0; i < count; i++) {
            out[(begin + i) / 8] |= (unsigned char)((values[i] > 0.0f) << (i % 8));
        }
        break;
    }
}

/* The sum of squares in double: finite exactly if all values are, since f32 squares cannot
 * overflow. */
static double scalar_squares(const float *values, size_t count)
{
    double sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
    size_t i = 0;

    for (; i + 4 <= count; i += 4) {
        sum0 += (double)values[i] * (double)values[i];
        sum1 += (double)values[i + 1] * (double)values[i + 1];
        sum2 += (double)values[i + 2] * (double)values[i + 2];
        sum3 += (double)values[i + 3] * (double)values[i + 3];
    }
    for (; i < count; i++) {
        sum0 += (double)values[i] * (double)values[i];
    }
    return (sum0 + sum1) + (sum2 + sum3);
}

static size_t scalar_first_infinite(const float *values, size_t count)
{
    size_t i = 0;

    while (i < count && isfinite(values[i])) {
        i++;
    }
    return i;
}

static int scalar_refuse(const char *why, size_t where, const char **reason, size_t *position)
{
    *reason = why;
    *position = where;
    return OMENDB_INVALID;
}

static int scalar_check_norm(const struct scalar_format *to, double squares, const char **reason,
                             size_t *position)
{
    const double largest = to->metric == OMENDB_COSINE ? (double)FLT_MAX : (double)FLT_MAX / 4;

    if (squares > largest) {
        return scalar_refuse(scalar_reason_huge, SIZE_MAX, reason, position);
    }
    if (to->metric != OMENDB_COSINE || squares >= (double)FLT_MIN) {
        return OMENDB_OK;
    }
    return scalar_refuse(squares > 0 ? scalar_reason_tiny : scalar_reason_zero, SIZE_MAX, reason,
                         position);
}

static int scalar_copy_bits(const struct scalar_format *to, const void *from, unsigned char *out)
{
    const size_t bytes = scalar_bytes(OMENDB_B1, to->dim);

    memcpy(out, from, bytes);
    if (to->dim % 8 != 0) {
        out[bytes - 1] &= (unsigned char)((1u << (to->dim % 8)) - 1u);
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int scalar_convert(const struct scalar_format *to, const void *from,
                                   omendb_scalar from_type, void *out, const char **reason,
                                   size_t *position)
{
    const bool verbatim = from_type == to->scalar;
    float values[SCALAR_RUN];
    double squares = 0;
    size_t begin, count;

    if ((unsigned int)from_type > OMENDB_B1) {
        return scalar_refuse(scalar_reason_type, SIZE_MAX, reason, position);
    }
    if (from_type == OMENDB_B1) {
        return to->scalar == OMENDB_B1
                   ? scalar_copy_bits(to, from, out)
                   : scalar_refuse(scalar_reason_bits, SIZE_MAX, reason, position);
    }
    if (verbatim) {
        memcpy(out, from, scalar_bytes(to->scalar, to->dim));
    }
    for (begin = 0; begin < to->dim; begin += count) {
        double run;

        count = to->dim - begin < SCALAR_RUN ? to->dim - begin : SCALAR_RUN;
        scalar_widen(from_type, from, begin, count, values);
        run = scalar_squares(values, count);
        if (!isfinite(run)) {
            return scalar_refuse(scalar_reason_infinite,
                                 begin + scalar_first_infinite(values, count), reason, position);
        }
        if (!verbatim) {
            scalar_narrow(to, values, begin, count, out);
            scalar_widen(to->scalar, out, begin, count, values);
            run = scalar_squares(values, count);
        }
        if (!isfinite(run)) {
            return scalar_refuse(to->scalar == OMENDB_F16 ? scalar_reason_f16 : scalar_reason_bf16,
                                 begin + scalar_first_infinite(values, count), reason, position);
        }
        squares += run;
    }
    return to->scalar == OMENDB_B1 ? OMENDB_OK : scalar_check_norm(to, squares, reason, position);
}

static bool scalar_is_integer(omendb_scalar scalar)
{
    return scalar == OMENDB_I8 || scalar == OMENDB_U8;
}

static bool scalar_export_is_lossless(const struct scalar_format *format, omendb_scalar to_type)
{
    switch (to_type) {
    case OMENDB_F32:
        return true;
    case OMENDB_F16:
    case OMENDB_BF16: /* both hold the integers up to 256 exactly */
        return format->scalar == OMENDB_B1 ||
               (scalar_is_integer(format->scalar) && format->scale == 1.0f);
    case OMENDB_I8:
    case OMENDB_U8:
        return format->scalar == OMENDB_B1;
    case OMENDB_B1:
        return false;
    }
    return false;
}

OMENDB_INTERNAL int scalar_export(const struct scalar_format *format, const void *stored,
                                  omendb_scalar to_type, void *out)
{
    struct scalar_format to = {to_type, format->metric, format->dim, 1.0f};
    const bool scaled = scalar_is_integer(format->scalar) && format->scale != 1.0f;
    float values[SCALAR_RUN];
    size_t begin, count, i;

    if (to_type == format->scalar) {
        memcpy(out, stored, scalar_bytes(to_type, format->dim));
        return OMENDB_OK;
    }
    if (!scalar_export_is_lossless(format, to_type)) {
        return OMENDB_INVALID;
    }
    for (begin = 0; begin < format->dim; begin += count) {
        count = format->dim - begin < SCALAR_RUN ? format->dim - begin : SCALAR_RUN;
        scalar_widen(format->scalar, stored, begin, count, values);
        for (i = 0; scaled && i < count; i++) {
            values[i] /= format->scale;
        }
        scalar_narrow(&to, values, begin, count, out);
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL float scalar_distance_factor(const struct scalar_format *format)
{
    const double scale = (double)format->scale;

    if (!scalar_is_integer(format->scalar) || format->metric == OMENDB_COSINE) {
        return 1.0f;
    }
    return (float)(1.0 / (scale * scale));
}

/* ==============================================================================================
 * kernels_scalar.c
 * ============================================================================================== */

/* kernels_scalar.c: the level that runs everywhere, in plain C.
 *
 * Used where no other level is compiled (MSVC, processors other than x86-64 and arm64) or asked
 * for, and as the reference that the others are read against. Floats are summed in four chains,
 * since one addition would otherwise wait three to four cycles for the last; integers by inner
 * loops of constant length, which compilers turn into baseline vectors (SSE2) already at -O2.
 *
 * Elements are read by memcpy, which compiles to plain loads and allows any address. Integers are
 * summed in uint32_t, where wrapping is defined; the sum of i8 products is read back as two's
 * complement.
 *
 * Rejected: sharing the query among four rows. Compilers keep four rows' sums in registers badly
 * without vectors, and a level that is not meant to be fast had better be short. */

/* ==============================================================================================
 * kernels.h
 * ============================================================================================== */

/* kernels.h: distances between stored vectors, for each element type, metric and instruction set.
 *
 * Meaning, with vectors of `dim` elements of one type at any address:
 *   L2             sum (a - b)^2, the squared distance
 *   inner product  -(a . b)
 *   cosine         1 - a.b / sqrt(a.a * b.b), within [0, 2]; 1 if either vector is zero
 *   Hamming        differing bits; dim is in bits, (dim + 7) / 8 bytes, the unused last bits are
 * zero A dim of 0 gives 0 (cosine 1). No byte past the vectors is read.
 *
 * Invariants, at every level:
 * - i8 and u8 are summed exactly in 32 bits, which hold 65,535 products of 255 * 255.
 * - f32, f16 and bf16 are summed in f32. With n = dim, e = 2^-24 and S the sum of the terms'
 * absolute values, the error is at most (n / 4 + 16) * e * S.
 * - pair(a, b) and many(a, {b}) give the same bits, whatever the position of the row in the call,
 * and so do L2 and inner product with a and b exchanged; equal vectors have an L2 and a cosine
 * distance of exactly 0. Ties are therefore ties whichever way a candidate was reached. Two levels
 * may differ within the bound. */
#ifndef OMENDB_KERNELS_H
#define OMENDB_KERNELS_H

#define KERNEL_SCALARS 6
#define KERNEL_METRICS 4

typedef float (*kernel_pair)(const void *a, const void *b, size_t dim);

/* out[i] = distance(query, rows[i]). Four rows at a time share the loads of the query and have
 * their cache misses in flight together; nothing is prefetched. */
typedef void (*kernel_many)(const void *query, const void *const *rows, size_t count, size_t dim,
                            float *out);

struct kernel {
    kernel_pair pair;
    kernel_many many;
};

/* One level. Entries of combinations that make no sense (Hamming goes with bits, and only with
 * bits) are null. */
struct kernel_table {
    const char *name;
    struct kernel by_type[KERNEL_SCALARS][KERNEL_METRICS];
};

/* The table in use: the best this processor runs, or what the environment variable OMENDB_KERNELS
 * names. Any thread; the first call detects. */
OMENDB_INTERNAL const struct kernel_table *kernels_active(void);

/* The entry of the active table; NULL for a combination that makes no sense. */
OMENDB_INTERNAL const struct kernel *kernels_for(omendb_scalar scalar, omendb_metric metric);

/* Every level that this processor can run, scalar first and the best last. Writes at most
 * `capacity` and returns how many there are (at most 4). */
OMENDB_INTERNAL size_t kernels_levels(const struct kernel_table **out, size_t capacity);

/* The levels. Which files have code depends on the compiler's target and version only. */
#if (defined(__x86_64__) && (__GNUC__ >= 9 || __clang_major__ >= 7)) ||                            \
    defined(KERNELS_EMULATED_X86)
#define KERNELS_X86 1
#else
#define KERNELS_X86 0
#endif

#if defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
#define KERNELS_NEON 1
#else
#define KERNELS_NEON 0
#endif

/* Clang offers the dot product intrinsics below its version 16 only where the whole file is built
 * with the feature, as Apple's compiler does for every Mac. */
#if KERNELS_NEON && (defined(__ARM_FEATURE_DOTPROD) || !defined(__clang__) || __clang_major__ >= 16)
#define KERNELS_NEONDOT 1
#else
#define KERNELS_NEONDOT 0
#endif

OMENDB_INTERNAL const struct kernel_table *kernels_scalar_table(void);
#if KERNELS_X86
OMENDB_INTERNAL const struct kernel_table *kernels_avx2_table(void);
OMENDB_INTERNAL const struct kernel_table *kernels_avx512_table(void);
OMENDB_INTERNAL const struct kernel_table *kernels_avx512vnni_table(void);
#endif
#if KERNELS_NEON
OMENDB_INTERNAL const struct kernel_table *kernels_neon_table(void);
#endif
#if KERNELS_NEONDOT
OMENDB_INTERNAL const struct kernel_table *kernels_neondot_table(void);
#endif

/* Bodies are written once for all types and metrics of a family and inlined with these two
 * constant; the compiler then drops the other branches. Hence the forced inlining. */
#if defined(__GNUC__) || defined(__clang__)
#define KERNELS_INLINE static inline __attribute__((always_inline, unused))
#else
#define KERNELS_INLINE static inline
#endif

/* Defines pair and many of one type under one metric from the bodies of a level's family. */
#define KERNELS_DEFINE(target, level, family, type, TYPE, metric, METRIC)                          \
    target static float level##_##type##_##metric##_pair(const void *a, const void *b, size_t dim) \
    {                                                                                              \
        return level##_##family##_pair(TYPE, METRIC, a, b, dim);                                   \
    }                                                                                              \
    target static void level##_##type##_##metric##_many(                                           \
        const void *query, const void *const *rows, size_t count, size_t dim, float *out)          \
    {                                                                                              \
        level##_##family##_many(TYPE, METRIC, query, rows, count, dim, out);                       \
    }

#define KERNELS_DEFINE_TYPE(target, level, family, type, TYPE)                                     \
    KERNELS_DEFINE(target, level, family, type, TYPE, l2, OMENDB_L2)                               \
    KERNELS_DEFINE(target, level, family, type, TYPE, cosine, OMENDB_COSINE)                       \
    KERNELS_DEFINE(target, level, family, type, TYPE, dot, OMENDB_INNER_PRODUCT)

/* A table's row for one type. */
#define KERNELS_ROW(level, type)                                                                   \
    {                                                                                              \
        [OMENDB_L2] = {level##_##type##_l2_pair, level##_##type##_l2_many},                        \
        [OMENDB_COSINE] = {level##_##type##_cosine_pair, level##_##type##_cosine_many},            \
        [OMENDB_INNER_PRODUCT] = {level##_##type##_dot_pair, level##_##type##_dot_many},           \
    }

#define KERNELS_ROW_BITS(level)                                                                    \
    {                                                                                              \
        [OMENDB_HAMMING] = {level##_hamming_pair, level##_hamming_many},                           \
    }

/* The four rows from `first` on; past the end of `rows` the last one stands in, through `padded`.
 */
KERNELS_INLINE const void *const *kernels_group(const void *const *rows, size_t first, size_t count,
                                                const void **padded)
{
    size_t i;

    if (count - first >= 4) {
        return rows + first;
    }
    for (i = 0; i < 4; i++) {
        padded[i] = rows[first + i < count ? first + i : count - 1];
    }
    return padded;
}

/* In double, because the product of two norms overflows f32, and because sqrt(a.a * a.a) is then
 * a.a exactly. A program with huge or NaN values gets some number in [0, 2] or NaN. */
KERNELS_INLINE float kernels_cosine(double dot, double norm_a, double norm_b)
{
    const double product = norm_a * norm_b;
    double distance = 1.0;

    if (product > 0.0) {
        distance = 1.0 - dot / sqrt(product);
        distance = distance < 0.0 ? 0.0 : distance > 2.0 ? 2.0 : distance;
    }
    return (float)distance;
}

#endif

/* kernels_scalar.c, continued */

#define PORTABLE_BLOCK 16 /* integers in a run */

KERNELS_INLINE float portable_float(omendb_scalar type, const unsigned char *vector, size_t i)
{
    uint16_t half;
    float value;

    if (type == OMENDB_F32) {
        memcpy(&value, vector + 4 * i, sizeof value);
        return value;
    }
    memcpy(&half, vector + 2 * i, sizeof half);
    return type == OMENDB_F16 ? scalar_f16_to_f32(half) : scalar_bf16_to_f32(half);
}

KERNELS_INLINE float portable_float_term(omendb_scalar type, omendb_metric metric, const void *a,
                                         const void *b, size_t i)
{
    const float x = portable_float(type, a, i), y = portable_float(type, b, i);

    return metric == OMENDB_L2 ? (x - y) * (x - y) : x * y;
}

/* The sum of the metric's terms: squared differences, or products. */
KERNELS_INLINE float portable_float_sum(omendb_scalar type, omendb_metric metric, const void *a,
                                        const void *b, size_t dim)
{
    float sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
    size_t i = 0;

    for (; i + 4 <= dim; i += 4) {
        sum0 += portable_float_term(type, metric, a, b, i);
        sum1 += portable_float_term(type, metric, a, b, i + 1);
        sum2 += portable_float_term(type, metric, a, b, i + 2);
        sum3 += portable_float_term(type, metric, a, b, i + 3);
    }
    for (; i < dim; i++) {
        sum0 += portable_float_term(type, metric, a, b, i);
    }
    return (sum0 + sum1) + (sum2 + sum3);
}

KERNELS_INLINE uint32_t portable_int_term(omendb_scalar type, omendb_metric metric, unsigned char a,
                                          unsigned char b)
{
    const int32_t x = type == OMENDB_I8 ? (int8_t)a : a, y = type == OMENDB_I8 ? (int8_t)b : b;

    return (uint32_t)(metric == OMENDB_L2 ? (x - y) * (x - y) : x * y);
}

KERNELS_INLINE double portable_int_sum(omendb_scalar type, omendb_metric metric,
                                       const unsigned char *a, const unsigned char *b, size_t dim)
{
    uint32_t sum = 0;
    size_t i = 0, lane;

    for (; i + PORTABLE_BLOCK <= dim; i += PORTABLE_BLOCK) {
        for (lane = 0; lane < PORTABLE_BLOCK; lane++) {
            sum += portable_int_term(type, metric, a[i + lane], b[i + lane]);
        }
    }
    for (; i < dim; i++) {
        sum += portable_int_term(type, metric, a[i], b[i]);
    }
    return metric != OMENDB_L2 && type == OMENDB_I8 ? (double)(int32_t)sum : (double)sum;
}

KERNELS_INLINE double portable_sum(omendb_scalar type, omendb_metric metric, const void *a,
                                   const void *b, size_t dim)
{
    return type == OMENDB_I8 || type == OMENDB_U8
               ? portable_int_sum(type, metric, a, b, dim)
               : (double)portable_float_sum(type, metric, a, b, dim);
}

/* query_norm is read under cosine only. */
KERNELS_INLINE float portable_distance(omendb_scalar type, omendb_metric metric, const void *query,
                                       const void *row, size_t dim, double query_norm)
{
    const double sum = portable_sum(type, metric, query, row, dim);

    if (metric == OMENDB_L2) {
        return (float)sum;
    }
    if (metric == OMENDB_INNER_PRODUCT) {
        return (float)(0.0 - sum);
    }
    return kernels_cosine(sum, query_norm, portable_sum(type, metric, row, row, dim));
}

KERNELS_INLINE void portable_any_many(omendb_scalar type, omendb_metric metric, const void *query,
                                      const void *const *rows, size_t count, size_t dim, float *out)
{
    const double query_norm =
        metric == OMENDB_COSINE ? portable_sum(type, metric, query, query, dim) : 0.0;
    size_t i;

    for (i = 0; i < count; i++) {
        out[i] = portable_distance(type, metric, query, rows[i], dim, query_norm);
    }
}

KERNELS_INLINE float portable_any_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                       const void *b, size_t dim)
{
    float distance;

    portable_any_many(type, metric, a, &b, 1, dim, &distance);
    return distance;
}

/* Set bits by adding neighbours of 1, 2 and 4 bits; the multiplication adds the eight bytes. */
KERNELS_INLINE uint32_t portable_set_bits(uint64_t word)
{
    word -= word >> 1 & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (uint32_t)(word * 0x0101010101010101u >> 56);
}

static float portable_hamming_pair(const void *a, const void *b, size_t dim)
{
    const unsigned char *x = a, *y = b;
    const size_t bytes = (dim + 7) / 8;
    uint32_t sum = 0;
    size_t i;

    for (i = 0; i < bytes; i += 8) {
        const size_t length = bytes - i < 8 ? bytes - i : 8;
        uint64_t left = 0, right = 0;
        memcpy(&left, x + i, length);
        memcpy(&right, y + i, length);
        sum += portable_set_bits(left ^ right);
    }
    return (float)sum;
}

static void portable_hamming_many(const void *query, const void *const *rows, size_t count,
                                  size_t dim, float *out)
{
    size_t i;

    for (i = 0; i < count; i++) {
        out[i] = portable_hamming_pair(query, rows[i], dim);
    }
}

KERNELS_DEFINE_TYPE(, portable, any, f32, OMENDB_F32)
KERNELS_DEFINE_TYPE(, portable, any, f16, OMENDB_F16)
KERNELS_DEFINE_TYPE(, portable, any, bf16, OMENDB_BF16)
KERNELS_DEFINE_TYPE(, portable, any, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(, portable, any, u8, OMENDB_U8)

OMENDB_INTERNAL const struct kernel_table *kernels_scalar_table(void)
{
    static const struct kernel_table table = {
        "scalar",
        {
            [OMENDB_F32] = KERNELS_ROW(portable, f32),
            [OMENDB_F16] = KERNELS_ROW(portable, f16),
            [OMENDB_BF16] = KERNELS_ROW(portable, bf16),
            [OMENDB_I8] = KERNELS_ROW(portable, i8),
            [OMENDB_U8] = KERNELS_ROW(portable, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(portable),
        },
    };

    return &table;
}

#undef PORTABLE_BLOCK

/* ==============================================================================================
 * kernels_avx2.c
 * ============================================================================================== */

/* kernels_avx2.c: AVX2 with FMA, F16C and POPCNT: every x86-64 server and desktop since about 2015.
 *
 * What binds, on Zen 3 and on Intel since Haswell: two 32-byte loads and two FMAs of latency 4 a
 * cycle.
 * - f32: one load a vector of the row and a quarter of the query's, one subtraction, one FMA. Four
 * rows with two sums each are the eight chains that keep both FMA units busy; 16 registers hold no
 * more. A single pair needs four chains, since two loads an FMA allow one FMA a cycle.
 * - f16: vcvtph2ps takes the shuffle port as well, so in cache about half of f32's rate an element
 * and the same a byte. bf16: the odd elements are f32s once the lower half is masked off, the even
 * ones once shifted; both vectors are split alike, and no shuffle is needed.
 * - i8 and u8: widened to 16 bits by the load (vpmovsxbw, vpmovzxbw), then vpmaddwd, exact.
 *   Rejected: vpmaddubsw, which saturates at 16 bits for full-range bytes.
 * - bits: popcnt of 64 bits, as fast up to some thousand bits as counting nibbles by vpshufb.
 *
 * Invariant: a row's sums are those of the first half of the blocks plus those of the rest, in two
 * chains each. A pair runs both halves side by side as four chains; four rows run one half after
 * the other. Both add in the same order, so their results are the same bits.
 *
 * The rest of a vector after the last whole block is read by a masked load (f32), or as the last 32
 * bytes of the vector with those already counted cleared; vectors under 32 bytes are copied. */

/* ==============================================================================================
 * kernels_x86.h
 * ============================================================================================== */

/* kernels_x86.h: what the AVX2 and the AVX-512 kernels share: the last steps after the sums.
 *
 * Four rows end together: their four vectors of partial sums become one vector of four totals,
 * which becomes four distances. A single pair takes the same way with the same vector four times,
 * so that the additions happen in the same order and the bits agree. */
#ifndef OMENDB_KERNELS_X86_H
#define OMENDB_KERNELS_X86_H

#if KERNELS_X86

#include <stdbool.h>
#include <string.h>

/* A test may compile these files over an emulation of the intrinsics, which it includes before. */
#if !defined(KERNELS_EMULATED_X86)
#include <immintrin.h>
#define KERNELS_AVX2 __attribute__((target("avx2,fma,f16c,popcnt")))
#define KERNELS_AVX512                                                                             \
    __attribute__((target("avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512dq,avx512vl")))
#define KERNELS_AVX512VNNI                                                                         \
    __attribute__((target("avx2,fma,f16c,popcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#else
#define KERNELS_AVX2
#define KERNELS_AVX512
#define KERNELS_AVX512VNNI
#endif

/* What a row's additions leave: partial sums of the metric's terms, and under cosine of the row's
 * squares. */
struct x86_float_sums {
    __m256 terms, squares;
};

struct x86_int_sums {
    __m256i terms, squares;
};

/* The totals of four vectors. */
KERNELS_AVX2 KERNELS_INLINE __m128 x86_add_floats(__m256 a, __m256 b, __m256 c, __m256 d)
{
    const __m256 halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));

    return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

KERNELS_AVX2 KERNELS_INLINE __m128i x86_add_ints(__m256i a, __m256i b, __m256i c, __m256i d)
{
    const __m256i halves = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));

    return _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

/* Unsigned to f32 with one rounding: both halves and the shifted one are exact. */
KERNELS_AVX2 KERNELS_INLINE __m128 x86_unsigned_to_floats(__m128i totals)
{
    const __m128 high = _mm_cvtepi32_ps(_mm_srli_epi32(totals, 16));
    const __m128 low = _mm_cvtepi32_ps(_mm_and_si128(totals, _mm_set1_epi32(0xffff)));

    return _mm_add_ps(_mm_mul_ps(high, _mm_set1_ps(65536.0f)), low);
}

KERNELS_AVX2 KERNELS_INLINE __m256d x86_unsigned_to_doubles(__m128i totals)
{
    const __m128i moved = _mm_xor_si128(totals, _mm_set1_epi32((int)0x80000000u));

    return _mm256_add_pd(_mm256_cvtepi32_pd(moved), _mm256_set1_pd(2147483648.0));
}

/* Four times kernels_cosine. */
KERNELS_AVX2 KERNELS_INLINE __m128 x86_cosines(__m256d dots, __m256d row_norms, double query_norm)
{
    const __m256d one = _mm256_set1_pd(1.0);
    const __m256d product = _mm256_mul_pd(row_norms, _mm256_set1_pd(query_norm));
    const __m256d positive = _mm256_cmp_pd(product, _mm256_setzero_pd(), _CMP_GT_OQ);
    __m256d distance = _mm256_sub_pd(one, _mm256_div_pd(dots, _mm256_sqrt_pd(product)));

    distance = _mm256_max_pd(distance, _mm256_setzero_pd());
    distance = _mm256_min_pd(distance, _mm256_set1_pd(2.0));
    return _mm256_cvtpd_ps(_mm256_blendv_pd(one, distance, positive));
}

/* Four distances out of the sums of four rows. query_norm is read under cosine only. */
KERNELS_AVX2 KERNELS_INLINE __m128 x86_finish_floats(omendb_metric metric, struct x86_float_sums a,
                                                     struct x86_float_sums b,
                                                     struct x86_float_sums c,
                                                     struct x86_float_sums d, double query_norm)
{
    const __m128 totals = x86_add_floats(a.terms, b.terms, c.terms, d.terms);

    if (metric == OMENDB_L2) {
        return totals;
    }
    if (metric == OMENDB_INNER_PRODUCT) {
        return _mm_sub_ps(_mm_setzero_ps(), totals);
    }
    return x86_cosines(_mm256_cvtps_pd(totals),
                       _mm256_cvtps_pd(x86_add_floats(a.squares, b.squares, c.squares, d.squares)),
                       query_norm);
}

/* query_bias is added to the dot products, for kernels that shift a sign. */
KERNELS_AVX2 KERNELS_INLINE __m128 x86_finish_ints(omendb_scalar type, omendb_metric metric,
                                                   struct x86_int_sums a, struct x86_int_sums b,
                                                   struct x86_int_sums c, struct x86_int_sums d,
                                                   uint32_t query_bias, double query_norm)
{
    const __m128i sums = x86_add_ints(a.terms, b.terms, c.terms, d.terms);
    const __m128i totals = _mm_add_epi32(sums, _mm_set1_epi32((int)query_bias));
    __m128 floats;

    if (metric == OMENDB_COSINE) {
        const __m128i squares = x86_add_ints(a.squares, b.squares, c.squares, d.squares);
        return x86_cosines(type == OMENDB_I8 ? _mm256_cvtepi32_pd(totals)
                                             : x86_unsigned_to_doubles(totals),
                           x86_unsigned_to_doubles(squares), query_norm);
    }
    if (metric == OMENDB_L2 || type == OMENDB_U8) {
        floats = x86_unsigned_to_floats(totals);
    } else {
        floats = _mm_cvtepi32_ps(totals);
    }
    return metric == OMENDB_L2 ? floats : _mm_sub_ps(_mm_setzero_ps(), floats);
}

/* The squared norm of a vector from the partial sums of its squares. */
KERNELS_AVX2 KERNELS_INLINE double x86_norm_of_floats(__m256 squares)
{
    return (double)_mm_cvtss_f32(x86_add_floats(squares, squares, squares, squares));
}

KERNELS_AVX2 KERNELS_INLINE double x86_norm_of_ints(__m256i squares)
{
    const __m128i totals = x86_add_ints(squares, squares, squares, squares);

    return (double)(uint32_t)_mm_cvtsi128_si32(totals);
}

/* The distance of a pair; `squares` of its first vector are read under cosine only. */
KERNELS_AVX2 KERNELS_INLINE float x86_finish_float(omendb_metric metric, struct x86_float_sums sums,
                                                   __m256 squares)
{
    const __m128 totals = x86_add_floats(sums.terms, sums.squares, squares, squares);
    const float total = _mm_cvtss_f32(totals);

    if (metric == OMENDB_COSINE) {
        return kernels_cosine((double)total, (double)_mm_cvtss_f32(_mm_movehdup_ps(totals)),
                              (double)_mm_cvtss_f32(_mm_movehl_ps(totals, totals)));
    }
    return metric == OMENDB_L2 ? total : 0.0f - total;
}

KERNELS_AVX2 KERNELS_INLINE float x86_finish_int(omendb_scalar type, omendb_metric metric,
                                                 struct x86_int_sums sums, uint32_t query_bias,
                                                 __m256i squares)
{
    const __m128i totals = x86_add_ints(sums.terms, sums.squares, squares, squares);
    const uint32_t sum = (uint32_t)_mm_cvtsi128_si32(totals) + query_bias;
    const bool is_signed = type == OMENDB_I8 && metric != OMENDB_L2;
    const double total = is_signed ? (double)(int32_t)sum : (double)sum;

    if (metric == OMENDB_COSINE) {
        return kernels_cosine(total, (double)(uint32_t)_mm_extract_epi32(totals, 1),
                              (double)(uint32_t)_mm_extract_epi32(totals, 2));
    }
    return (float)(metric == OMENDB_L2 ? total : 0.0 - total);
}

/* The first `count` of four distances; all four if there are more. */
KERNELS_AVX2 KERNELS_INLINE void x86_store(float *out, size_t count, __m128 distances)
{
    float copy[4];

    if (count >= 4) {
        _mm_storeu_ps(out, distances);
        return;
    }
    _mm_storeu_ps(copy, distances);
    memcpy(out, copy, count * sizeof *out);
}

#endif
#endif

/* kernels_avx2.c, continued */

#if KERNELS_X86

#define AVX2_INLINE KERNELS_AVX2 KERNELS_INLINE
#define AVX2_BLOCK  16 /* elements a step of the float kernels */

/* 32 bytes of zeros, 64 of ones, 64 of zeros: masks that keep the last or the first elements. */
static const int32_t avx2_edges[40] = {0,  0,  0,  0,  0,  0,  0,  0,  -1, -1, -1, -1,
                                       -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};

AVX2_INLINE __m256i avx2_load32(const unsigned char *from)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

AVX2_INLINE __m128i avx2_load16(const unsigned char *from)
{
    return _mm_loadu_si128((const __m128i *)(const void *)from);
}

/* The `length` bytes (1 to 31) before `end`, anywhere in an otherwise zero vector. */
AVX2_INLINE __m256i avx2_load_rest(const unsigned char *vector, size_t end, size_t length)
{
    unsigned char copy[32] = {0};

    if (end >= 32) {
        const __m256i keep_last = avx2_load32((const unsigned char *)avx2_edges + length);
        return _mm256_and_si256(keep_last, avx2_load32(vector + end - 32));
    }
    memcpy(copy, vector + end - length, length);
    return avx2_load32(copy);
}

struct avx2_floats {
    __m256 low, high;
};

/* 16 elements of f16 in order, or of bf16 with the even ones in `low` and the odd ones in `high`.
 */
AVX2_INLINE struct avx2_floats avx2_widen(omendb_scalar type, __m256i packed)
{
    struct avx2_floats out;

    if (type == OMENDB_F16) {
        out.low = _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
        out.high = _mm256_cvtph_ps(_mm256_extracti128_si256(packed, 1));
    } else {
        const __m256i odd = _mm256_and_si256(packed, _mm256_set1_epi32((int)0xffff0000u));
        out.low = _mm256_castsi256_ps(_mm256_slli_epi32(packed, 16));
        out.high = _mm256_castsi256_ps(odd);
    }
    return out;
}

AVX2_INLINE struct avx2_floats avx2_load(omendb_scalar type, const void *vector, size_t i)
{
    const unsigned char *from = (const unsigned char *)vector + i * (type == OMENDB_F32 ? 4 : 2);
    struct avx2_floats out;

    if (type == OMENDB_F32) {
        out.low = _mm256_castsi256_ps(avx2_load32(from));
        out.high = _mm256_castsi256_ps(avx2_load32(from + 32));
    } else if (type == OMENDB_F16) {
        out.low = _mm256_cvtph_ps(avx2_load16(from));
        out.high = _mm256_cvtph_ps(avx2_load16(from + 16));
    } else {
        out = avx2_widen(type, avx2_load32(from));
    }
    return out;
}

/* The last dim % AVX2_BLOCK elements, and zeros. */
AVX2_INLINE struct avx2_floats avx2_load_last(omendb_scalar type, const void *vector, size_t dim)
{
    const size_t count = dim % AVX2_BLOCK;
    struct avx2_floats out;

    if (type == OMENDB_F32) {
        const int *from =
            (const int *)(const void *)((const unsigned char *)vector + 4 * (dim - count));
        const unsigned char *keep_first =
            (const unsigned char *)(avx2_edges + 8 + AVX2_BLOCK - count);
        out.low = _mm256_castsi256_ps(_mm256_maskload_epi32(from, avx2_load32(keep_first)));
        out.high =
            _mm256_castsi256_ps(_mm256_maskload_epi32(from + 8, avx2_load32(keep_first + 32)));
    } else {
        out = avx2_widen(type, avx2_load_rest(vector, 2 * dim, 2 * count));
    }
    return out;
}

/* Two chains a row: of terms, or under cosine of products and of the row's squares. */
struct avx2_chains {
    __m256 first, second;
};

AVX2_INLINE struct avx2_chains avx2_step(omendb_metric metric, struct avx2_chains sums,
                                         struct avx2_floats query, struct avx2_floats row)
{
    if (metric == OMENDB_L2) {
        const __m256 low = _mm256_sub_ps(query.low, row.low);
        const __m256 high = _mm256_sub_ps(query.high, row.high);
        sums.first = _mm256_fmadd_ps(low, low, sums.first);
        sums.second = _mm256_fmadd_ps(high, high, sums.second);
    } else if (metric == OMENDB_INNER_PRODUCT) {
        sums.first = _mm256_fmadd_ps(query.low, row.low, sums.first);
        sums.second = _mm256_fmadd_ps(query.high, row.high, sums.second);
    } else {
        sums.first = _mm256_fmadd_ps(query.low, row.low, sums.first);
        sums.second = _mm256_fmadd_ps(row.low, row.low, sums.second);
        sums.first = _mm256_fmadd_ps(query.high, row.high, sums.first);
        sums.second = _mm256_fmadd_ps(row.high, row.high, sums.second);
    }
    return sums;
}

/* One half's sums. */
AVX2_INLINE struct x86_float_sums avx2_join(omendb_metric metric, struct avx2_chains half)
{
    struct x86_float_sums out = {half.first, half.second};

    if (metric != OMENDB_COSINE) {
        out.terms = _mm256_add_ps(half.first, half.second);
        out.squares = _mm256_setzero_ps();
    }
    return out;
}

AVX2_INLINE struct x86_float_sums avx2_add_halves(struct x86_float_sums head,
                                                  struct x86_float_sums tail)
{
    const struct x86_float_sums out = {_mm256_add_ps(head.terms, tail.terms),
                                       _mm256_add_ps(head.squares, tail.squares)};

    return out;
}

AVX2_INLINE struct avx2_chains avx2_zero_chains(void)
{
    const struct avx2_chains zero = {_mm256_setzero_ps(), _mm256_setzero_ps()};

    return zero;
}

/* Where the first half of the blocks ends. */
AVX2_INLINE size_t avx2_middle(size_t dim)
{
    return dim / (2 * AVX2_BLOCK) * AVX2_BLOCK;
}

/* The squares of the first vector of a pair, in the order in which a row's are added. */
AVX2_INLINE __m256 avx2_add_squares(omendb_metric metric, __m256 sum, struct avx2_floats block)
{
    if (metric != OMENDB_COSINE) {
        return sum;
    }
    return _mm256_fmadd_ps(block.high, block.high, _mm256_fmadd_ps(block.low, block.low, sum));
}

/* Also stores the sums of the squares of `a`, under cosine. */
AVX2_INLINE struct x86_float_sums avx2_float_sums(omendb_scalar type, omendb_metric metric,
                                                  const void *a, const void *b, size_t dim,
                                                  __m256 *squares_of_a)
{
    const size_t middle = avx2_middle(dim);
    struct avx2_chains head = avx2_zero_chains(), tail = avx2_zero_chains();
    __m256 own_head = _mm256_setzero_ps(), own_tail = _mm256_setzero_ps();
    struct avx2_floats block;
    size_t i;

    for (i = 0; i < middle; i += AVX2_BLOCK) {
        block = avx2_load(type, a, i);
        head = avx2_step(metric, head, block, avx2_load(type, b, i));
        own_head = avx2_add_squares(metric, own_head, block);
        block = avx2_load(type, a, middle + i);
        tail = avx2_step(metric, tail, block, avx2_load(type, b, middle + i));
        own_tail = avx2_add_squares(metric, own_tail, block);
    }
    if (dim - 2 * middle >= AVX2_BLOCK) {
        block = avx2_load(type, a, 2 * middle);
        tail = avx2_step(metric, tail, block, avx2_load(type, b, 2 * middle));
        own_tail = avx2_add_squares(metric, own_tail, block);
    }
    if (dim % AVX2_BLOCK != 0) {
        block = avx2_load_last(type, a, dim);
        tail = avx2_step(metric, tail, block, avx2_load_last(type, b, dim));
        own_tail = avx2_add_squares(metric, own_tail, block);
    }
    *squares_of_a = _mm256_add_ps(own_head, own_tail);
    return avx2_add_halves(avx2_join(metric, head), avx2_join(metric, tail));
}

AVX2_INLINE float avx2_float_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                  const void *b, size_t dim)
{
    __m256 squares;
    const struct x86_float_sums sums = avx2_float_sums(type, metric, a, b, dim, &squares);

    return x86_finish_float(metric, sums, squares);
}

struct avx2_four {
    struct x86_float_sums a, b, c, d;
};

/* Blocks [begin, end) of four rows, and the rest of the vectors if `with_rest`. */
AVX2_INLINE struct avx2_four avx2_four_rows(omendb_scalar type, omendb_metric metric,
                                            const void *query, const void *const *rows,
                                            size_t begin, size_t end, bool with_rest, size_t dim)
{
    const void *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct avx2_chains a = avx2_zero_chains(), b = a, c = a, d = a;
    struct avx2_four out;
    size_t i;

    for (i = begin; i < end; i += AVX2_BLOCK) {
        const struct avx2_floats block = avx2_load(type, query, i);
        a = avx2_step(metric, a, block, avx2_load(type, row_a, i));
        b = avx2_step(metric, b, block, avx2_load(type, row_b, i));
        c = avx2_step(metric, c, block, avx2_load(type, row_c, i));
        d = avx2_step(metric, d, block, avx2_load(type, row_d, i));
    }
    if (with_rest && dim % AVX2_BLOCK != 0) {
        const struct avx2_floats block = avx2_load_last(type, query, dim);
        a = avx2_step(metric, a, block, avx2_load_last(type, row_a, dim));
        b = avx2_step(metric, b, block, avx2_load_last(type, row_b, dim));
        c = avx2_step(metric, c, block, avx2_load_last(type, row_c, dim));
        d = avx2_step(metric, d, block, avx2_load_last(type, row_d, dim));
    }
    out.a = avx2_join(metric, a);
    out.b = avx2_join(metric, b);
    out.c = avx2_join(metric, c);
    out.d = avx2_join(metric, d);
    return out;
}

AVX2_INLINE __m128 avx2_float_four(omendb_scalar type, omendb_metric metric, const void *query,
                                   double query_norm, const void *const *rows, size_t dim)
{
    const size_t middle = avx2_middle(dim), end = dim - dim % AVX2_BLOCK;
    const struct avx2_four head = avx2_four_rows(type, metric, query, rows, 0, middle, false, dim);
    const struct avx2_four tail = avx2_four_rows(type, metric, query, rows, middle, end, true, dim);

    return x86_finish_floats(metric, avx2_add_halves(head.a, tail.a),
                             avx2_add_halves(head.b, tail.b), avx2_add_halves(head.c, tail.c),
                             avx2_add_halves(head.d, tail.d), query_norm);
}

AVX2_INLINE void avx2_float_many(omendb_scalar type, omendb_metric metric, const void *query,
                                 const void *const *rows, size_t count, size_t dim, float *out)
{
    double query_norm = 0.0;
    __m256 squares;
    size_t i;

    if (metric == OMENDB_COSINE) {
        (void)avx2_float_sums(type, metric, query, query, dim, &squares);
        query_norm = x86_norm_of_floats(squares);
    }
    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        x86_store(out + i, count - i, avx2_float_four(type, metric, query, query_norm, group, dim));
    }
}

/* 32 bytes as 16-bit integers. */
struct avx2_ints {
    __m256i low, high;
};

AVX2_INLINE struct avx2_ints avx2_widen_bytes(omendb_scalar type, __m128i low, __m128i high)
{
    struct avx2_ints out;

    if (type == OMENDB_I8) {
        out.low = _mm256_cvtepi8_epi16(low);
        out.high = _mm256_cvtepi8_epi16(high);
    } else {
        out.low = _mm256_cvtepu8_epi16(low);
        out.high = _mm256_cvtepu8_epi16(high);
    }
    return out;
}

AVX2_INLINE struct avx2_ints avx2_load_bytes(omendb_scalar type, const unsigned char *vector,
                                             size_t i)
{
    return avx2_widen_bytes(type, avx2_load16(vector + i), avx2_load16(vector + i + 16));
}

AVX2_INLINE struct avx2_ints avx2_load_last_bytes(omendb_scalar type, const unsigned char *vector,
                                                  size_t dim)
{
    const __m256i rest = avx2_load_rest(vector, dim, dim % 32);

    return avx2_widen_bytes(type, _mm256_castsi256_si128(rest), _mm256_extracti128_si256(rest, 1));
}

AVX2_INLINE struct x86_int_sums avx2_int_step(omendb_metric metric, struct x86_int_sums sums,
                                              struct avx2_ints query, struct avx2_ints row)
{
    __m256i low, high;

    if (metric == OMENDB_L2) {
        low = _mm256_sub_epi16(query.low, row.low);
        high = _mm256_sub_epi16(query.high, row.high);
        low = _mm256_madd_epi16(low, low);
        high = _mm256_madd_epi16(high, high);
    } else {
        low = _mm256_madd_epi16(query.low, row.low);
        high = _mm256_madd_epi16(query.high, row.high);
    }
    sums.terms = _mm256_add_epi32(sums.terms, _mm256_add_epi32(low, high));
    if (metric == OMENDB_COSINE) {
        low = _mm256_madd_epi16(row.low, row.low);
        high = _mm256_madd_epi16(row.high, row.high);
        sums.squares = _mm256_add_epi32(sums.squares, _mm256_add_epi32(low, high));
    }
    return sums;
}

AVX2_INLINE struct x86_int_sums avx2_zero_sums(void)
{
    const struct x86_int_sums zero = {_mm256_setzero_si256(), _mm256_setzero_si256()};

    return zero;
}

AVX2_INLINE __m256i avx2_add_int_squares(omendb_metric metric, __m256i sum, struct avx2_ints block)
{
    if (metric != OMENDB_COSINE) {
        return sum;
    }
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(block.low, block.low),
                                                  _mm256_madd_epi16(block.high, block.high)));
}

/* Also stores the sums of the squares of `a`, under cosine. */
AVX2_INLINE struct x86_int_sums avx2_int_sums(omendb_scalar type, omendb_metric metric,
                                              const void *a, const void *b, size_t dim,
                                              __m256i *squares_of_a)
{
    struct x86_int_sums sums = avx2_zero_sums();
    struct avx2_ints block;
    size_t i;

    *squares_of_a = _mm256_setzero_si256();
    for (i = 0; i + 32 <= dim; i += 32) {
        block = avx2_load_bytes(type, a, i);
        sums = avx2_int_step(metric, sums, block, avx2_load_bytes(type, b, i));
        *squares_of_a = avx2_add_int_squares(metric, *squares_of_a, block);
    }
    if (i < dim) {
        block = avx2_load_last_bytes(type, a, dim);
        sums = avx2_int_step(metric, sums, block, avx2_load_last_bytes(type, b, dim));
        *squares_of_a = avx2_add_int_squares(metric, *squares_of_a, block);
    }
    return sums;
}

AVX2_INLINE float avx2_int_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                const void *b, size_t dim)
{
    __m256i squares;
    const struct x86_int_sums sums = avx2_int_sums(type, metric, a, b, dim, &squares);

    return x86_finish_int(type, metric, sums, 0, squares);
}

AVX2_INLINE __m128 avx2_int_four(omendb_scalar type, omendb_metric metric, const void *query,
                                 double query_norm, const void *const *rows, size_t dim)
{
    const void *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct x86_int_sums a = avx2_zero_sums(), b = a, c = a, d = a;
    size_t i;

    for (i = 0; i + 32 <= dim; i += 32) {
        const struct avx2_ints block = avx2_load_bytes(type, query, i);
        a = avx2_int_step(metric, a, block, avx2_load_bytes(type, row_a, i));
        b = avx2_int_step(metric, b, block, avx2_load_bytes(type, row_b, i));
        c = avx2_int_step(metric, c, block, avx2_load_bytes(type, row_c, i));
        d = avx2_int_step(metric, d, block, avx2_load_bytes(type, row_d, i));
    }
    if (i < dim) {
        const struct avx2_ints block = avx2_load_last_bytes(type, query, dim);
        a = avx2_int_step(metric, a, block, avx2_load_last_bytes(type, row_a, dim));
        b = avx2_int_step(metric, b, block, avx2_load_last_bytes(type, row_b, dim));
        c = avx2_int_step(metric, c, block, avx2_load_last_bytes(type, row_c, dim));
        d = avx2_int_step(metric, d, block, avx2_load_last_bytes(type, row_d, dim));
    }
    return x86_finish_ints(type, metric, a, b, c, d, 0, query_norm);
}

AVX2_INLINE void avx2_int_many(omendb_scalar type, omendb_metric metric, const void *query,
                               const void *const *rows, size_t count, size_t dim, float *out)
{
    double query_norm = 0.0;
    __m256i squares;
    size_t i;

    if (metric == OMENDB_COSINE) {
        (void)avx2_int_sums(type, metric, query, query, dim, &squares);
        query_norm = x86_norm_of_ints(squares);
    }
    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        x86_store(out + i, count - i, avx2_int_four(type, metric, query, query_norm, group, dim));
    }
}

/* Differing bits of up to 8 bytes. */
AVX2_INLINE uint64_t avx2_differing(const unsigned char *a, const unsigned char *b, size_t length)
{
    uint64_t left = 0, right = 0;

    memcpy(&left, a, length);
    memcpy(&right, b, length);
    return (uint64_t)__builtin_popcountll(left ^ right);
}

KERNELS_AVX2 static float avx2_hamming_pair(const void *a, const void *b, size_t dim)
{
    const unsigned char *x = a, *y = b;
    const size_t bytes = (dim + 7) / 8;
    uint64_t sum = 0;
    size_t i = 0;

    for (; i + 32 <= bytes; i += 32) {
        sum +=
            (avx2_differing(x + i, y + i, 8) + avx2_differing(x + i + 8, y + i + 8, 8)) +
            (avx2_differing(x + i + 16, y + i + 16, 8) + avx2_differing(x + i + 24, y + i + 24, 8));
    }
    for (; i + 8 <= bytes; i += 8) {
        sum += avx2_differing(x + i, y + i, 8);
    }
    if (i < bytes) {
        sum += avx2_differing(x + i, y + i, bytes - i);
    }
    return (float)sum;
}

KERNELS_AVX2 static void avx2_hamming_many(const void *query, const void *const *rows, size_t count,
                                           size_t dim, float *out)
{
    size_t i;

    for (i = 0; i < count; i++) {
        out[i] = avx2_hamming_pair(query, rows[i], dim);
    }
}

KERNELS_DEFINE_TYPE(KERNELS_AVX2, avx2, float, f32, OMENDB_F32)
KERNELS_DEFINE_TYPE(KERNELS_AVX2, avx2, float, f16, OMENDB_F16)
KERNELS_DEFINE_TYPE(KERNELS_AVX2, avx2, float, bf16, OMENDB_BF16)
KERNELS_DEFINE_TYPE(KERNELS_AVX2, avx2, int, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(KERNELS_AVX2, avx2, int, u8, OMENDB_U8)

OMENDB_INTERNAL const struct kernel_table *kernels_avx2_table(void)
{
    static const struct kernel_table table = {
        "avx2",
        {
            [OMENDB_F32] = KERNELS_ROW(avx2, f32),
            [OMENDB_F16] = KERNELS_ROW(avx2, f16),
            [OMENDB_BF16] = KERNELS_ROW(avx2, bf16),
            [OMENDB_I8] = KERNELS_ROW(avx2, i8),
            [OMENDB_U8] = KERNELS_ROW(avx2, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(avx2),
        },
    };

    return &table;
}

#undef AVX2_INLINE
#undef AVX2_BLOCK

#endif

/* ==============================================================================================
 * kernels_avx512.c
 * ============================================================================================== */

/* kernels_avx512.c: AVX-512 F, BW, DQ and VL (Skylake-X, Zen 4), and a second level with VNNI.
 *
 * What binds: two 64-byte loads and, on cores with both units, two FMAs of latency 4 a cycle. 32
 * registers hold four rows of four chains each, which a single pair uses too, so no halves are
 * needed for equal bits (see kernels_avx2.c). Rests are masked loads, which neither read nor fault
 * past the end.
 *
 * VNNI's vpdpbusd multiplies unsigned by signed bytes and adds four products to a 32-bit lane
 * without saturation; two a cycle on two units. With ^ for flipping the top bit, which is adding
 * 128 to a signed byte or taking 128 from an unsigned one: dot of i8   (r^) . q - 128 sum q of u8
 * q . (r^) + 128 sum q squares i8  (r^) . r - 128 sum r         of u8   r . (r^) + 128 sum r L2 d =
 * |q - r| unsigned; d . (d^) + 128 sum d, sums again by vpdpbusd with ones All modulo 2^32, in
 * which the results fit. The query's sum is taken once a call.
 *
 * Rejected: AVX512_BF16's dot product, which Intel's server cores run at half the rate of FMA,
 * which flushes subnormals, and whose rounding differs; AVX512_FP16, whose sums in half precision
 * would break the error bound; VPOPCNTDQ, which would need one more level, while counting nibbles
 * by vpshufb keeps up with memory. */

#if KERNELS_X86

#define AVX512_INLINE     KERNELS_AVX512 KERNELS_INLINE
#define AVX512VNNI_INLINE KERNELS_AVX512VNNI KERNELS_INLINE
#define AVX512_BLOCK      64 /* elements a step of all kernels */

/* The first `count` (0 to 63) bits. */
AVX512_INLINE uint64_t avx512_first(size_t count)
{
    return ((uint64_t)1 << count) - 1;
}

/* 64 elements; for bf16 the even and the odd ones of each half apart. */
struct avx512_floats {
    __m512 a, b, c, d;
};

AVX512_INLINE struct avx512_floats avx512_split(__m512i low, __m512i high)
{
    const __m512i odd = _mm512_set1_epi32((int)0xffff0000u);
    struct avx512_floats out;

    out.a = _mm512_castsi512_ps(_mm512_slli_epi32(low, 16));
    out.b = _mm512_castsi512_ps(_mm512_and_si512(low, odd));
    out.c = _mm512_castsi512_ps(_mm512_slli_epi32(high, 16));
    out.d = _mm512_castsi512_ps(_mm512_and_si512(high, odd));
    return out;
}

AVX512_INLINE __m512i avx512_load64(const unsigned char *from)
{
    return _mm512_loadu_si512((const void *)from);
}

AVX512_INLINE __m256i avx512_load32(const unsigned char *from)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

AVX512_INLINE struct avx512_floats avx512_load(omendb_scalar type, const void *vector, size_t i)
{
    const unsigned char *from = (const unsigned char *)vector + i * (type == OMENDB_F32 ? 4 : 2);
    struct avx512_floats out;

    if (type == OMENDB_F32) {
        out.a = _mm512_castsi512_ps(avx512_load64(from));
        out.b = _mm512_castsi512_ps(avx512_load64(from + 64));
        out.c = _mm512_castsi512_ps(avx512_load64(from + 128));
        out.d = _mm512_castsi512_ps(avx512_load64(from + 192));
    } else if (type == OMENDB_F16) {
        out.a = _mm512_cvtph_ps(avx512_load32(from));
        out.b = _mm512_cvtph_ps(avx512_load32(from + 32));
        out.c = _mm512_cvtph_ps(avx512_load32(from + 64));
        out.d = _mm512_cvtph_ps(avx512_load32(from + 96));
    } else {
        out = avx512_split(avx512_load64(from), avx512_load64(from + 64));
    }
    return out;
}

/* The last dim % AVX512_BLOCK elements, and zeros. */
AVX512_INLINE struct avx512_floats avx512_load_last(omendb_scalar type, const void *vector,
                                                    size_t dim)
{
    const size_t count = dim % AVX512_BLOCK;
    const uint64_t mask = avx512_first(count);
    const unsigned char *from =
        (const unsigned char *)vector + (dim - count) * (type == OMENDB_F32 ? 4 : 2);
    struct avx512_floats out;

    if (type == OMENDB_F32) {
        out.a = _mm512_castsi512_ps(_mm512_maskz_loadu_epi32((__mmask16)mask, from));
        out.b = _mm512_castsi512_ps(_mm512_maskz_loadu_epi32((__mmask16)(mask >> 16), from + 64));
        out.c = _mm512_castsi512_ps(_mm512_maskz_loadu_epi32((__mmask16)(mask >> 32), from + 128));
        out.d = _mm512_castsi512_ps(_mm512_maskz_loadu_epi32((__mmask16)(mask >> 48), from + 192));
    } else if (type == OMENDB_F16) {
        out.a = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)mask, from));
        out.b = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)(mask >> 16), from + 32));
        out.c = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)(mask >> 32), from + 64));
        out.d = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)(mask >> 48), from + 96));
    } else {
        out = avx512_split(_mm512_maskz_loadu_epi16((__mmask32)mask, from),
                           _mm512_maskz_loadu_epi16((__mmask32)(mask >> 32), from + 64));
    }
    return out;
}

/* Four chains of terms, or under cosine two of products and two of the row's squares. */
AVX512_INLINE struct avx512_floats avx512_step(omendb_metric metric, struct avx512_floats sums,
                                               struct avx512_floats query, struct avx512_floats row)
{
    if (metric == OMENDB_L2) {
        const __m512 a = _mm512_sub_ps(query.a, row.a), b = _mm512_sub_ps(query.b, row.b);
        const __m512 c = _mm512_sub_ps(query.c, row.c), d = _mm512_sub_ps(query.d, row.d);
        sums.a = _mm512_fmadd_ps(a, a, sums.a);
        sums.b = _mm512_fmadd_ps(b, b, sums.b);
        sums.c = _mm512_fmadd_ps(c, c, sums.c);
        sums.d = _mm512_fmadd_ps(d, d, sums.d);
    } else if (metric == OMENDB_INNER_PRODUCT) {
        sums.a = _mm512_fmadd_ps(query.a, row.a, sums.a);
        sums.b = _mm512_fmadd_ps(query.b, row.b, sums.b);
        sums.c = _mm512_fmadd_ps(query.c, row.c, sums.c);
        sums.d = _mm512_fmadd_ps(query.d, row.d, sums.d);
    } else {
        sums.a = _mm512_fmadd_ps(query.a, row.a, sums.a);
        sums.b = _mm512_fmadd_ps(query.b, row.b, sums.b);
        sums.c = _mm512_fmadd_ps(row.a, row.a, sums.c);
        sums.d = _mm512_fmadd_ps(row.b, row.b, sums.d);
        sums.a = _mm512_fmadd_ps(query.c, row.c, sums.a);
        sums.b = _mm512_fmadd_ps(query.d, row.d, sums.b);
        sums.c = _mm512_fmadd_ps(row.c, row.c, sums.c);
        sums.d = _mm512_fmadd_ps(row.d, row.d, sums.d);
    }
    return sums;
}

AVX512_INLINE __m256 avx512_fold_floats(__m512 a, __m512 b)
{
    const __m512 sum = _mm512_add_ps(a, b);
    const __m512d pairs = _mm512_castps_pd(sum);

    return _mm256_add_ps(_mm512_castps512_ps256(sum),
                         _mm256_castpd_ps(_mm512_extractf64x4_pd(pairs, 1)));
}

AVX512_INLINE struct x86_float_sums avx512_join(omendb_metric metric, struct avx512_floats sums)
{
    struct x86_float_sums out;

    if (metric == OMENDB_COSINE) {
        out.terms = avx512_fold_floats(sums.a, sums.b);
        out.squares = avx512_fold_floats(sums.c, sums.d);
    } else {
        out.terms =
            avx512_fold_floats(_mm512_add_ps(sums.a, sums.b), _mm512_add_ps(sums.c, sums.d));
        out.squares = _mm256_setzero_ps();
    }
    return out;
}

AVX512_INLINE struct avx512_floats avx512_zero_chains(void)
{
    const struct avx512_floats zero = {_mm512_setzero_ps(), _mm512_setzero_ps(),
                                       _mm512_setzero_ps(), _mm512_setzero_ps()};

    return zero;
}

/* The squares of the first vector of a pair, in the order in which a row's are added. */
struct avx512_squares {
    __m512 c, d;
};

AVX512_INLINE struct avx512_squares
avx512_add_squares(omendb_metric metric, struct avx512_squares sums, struct avx512_floats block)
{
    if (metric == OMENDB_COSINE) {
        sums.c = _mm512_fmadd_ps(block.a, block.a, sums.c);
        sums.d = _mm512_fmadd_ps(block.b, block.b, sums.d);
        sums.c = _mm512_fmadd_ps(block.c, block.c, sums.c);
        sums.d = _mm512_fmadd_ps(block.d, block.d, sums.d);
    }
    return sums;
}

/* Also stores the sums of the squares of `a`, under cosine. */
AVX512_INLINE struct x86_float_sums avx512_float_sums(omendb_scalar type, omendb_metric metric,
                                                      const void *a, const void *b, size_t dim,
                                                      __m256 *squares_of_a)
{
    struct avx512_squares own = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    struct avx512_floats sums = avx512_zero_chains(), block;
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        block = avx512_load(type, a, i);
        sums = avx512_step(metric, sums, block, avx512_load(type, b, i));
        own = avx512_add_squares(metric, own, block);
    }
    if (i < dim) {
        block = avx512_load_last(type, a, dim);
        sums = avx512_step(metric, sums, block, avx512_load_last(type, b, dim));
        own = avx512_add_squares(metric, own, block);
    }
    *squares_of_a = avx512_fold_floats(own.c, own.d);
    return avx512_join(metric, sums);
}

AVX512_INLINE float avx512_float_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                      const void *b, size_t dim)
{
    __m256 squares;
    const struct x86_float_sums sums = avx512_float_sums(type, metric, a, b, dim, &squares);

    return x86_finish_float(metric, sums, squares);
}

AVX512_INLINE __m128 avx512_float_four(omendb_scalar type, omendb_metric metric, const void *query,
                                       double query_norm, const void *const *rows, size_t dim)
{
    const void *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct avx512_floats a = avx512_zero_chains(), b = a, c = a, d = a;
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        const struct avx512_floats block = avx512_load(type, query, i);
        a = avx512_step(metric, a, block, avx512_load(type, row_a, i));
        b = avx512_step(metric, b, block, avx512_load(type, row_b, i));
        c = avx512_step(metric, c, block, avx512_load(type, row_c, i));
        d = avx512_step(metric, d, block, avx512_load(type, row_d, i));
    }
    if (i < dim) {
        const struct avx512_floats block = avx512_load_last(type, query, dim);
        a = avx512_step(metric, a, block, avx512_load_last(type, row_a, dim));
        b = avx512_step(metric, b, block, avx512_load_last(type, row_b, dim));
        c = avx512_step(metric, c, block, avx512_load_last(type, row_c, dim));
        d = avx512_step(metric, d, block, avx512_load_last(type, row_d, dim));
    }
    return x86_finish_floats(metric, avx512_join(metric, a), avx512_join(metric, b),
                             avx512_join(metric, c), avx512_join(metric, d), query_norm);
}

AVX512_INLINE void avx512_float_many(omendb_scalar type, omendb_metric metric, const void *query,
                                     const void *const *rows, size_t count, size_t dim, float *out)
{
    double query_norm = 0.0;
    __m256 squares;
    size_t i;

    if (metric == OMENDB_COSINE) {
        (void)avx512_float_sums(type, metric, query, query, dim, &squares);
        query_norm = x86_norm_of_floats(squares);
    }
    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        x86_store(out + i, count - i,
                  avx512_float_four(type, metric, query, query_norm, group, dim));
    }
}

/* Sums of 16 lanes: of terms, and under cosine of the row's squares. */
struct avx512_int_sums {
    __m512i terms, squares;
};

/* 64 bytes as 16-bit integers. */
struct avx512_ints {
    __m512i low, high;
};

AVX512_INLINE struct avx512_ints avx512_widen(omendb_scalar type, __m256i low, __m256i high)
{
    struct avx512_ints out;

    if (type == OMENDB_I8) {
        out.low = _mm512_cvtepi8_epi16(low);
        out.high = _mm512_cvtepi8_epi16(high);
    } else {
        out.low = _mm512_cvtepu8_epi16(low);
        out.high = _mm512_cvtepu8_epi16(high);
    }
    return out;
}

AVX512_INLINE struct avx512_ints avx512_load_bytes(omendb_scalar type, const unsigned char *vector,
                                                   size_t i)
{
    return avx512_widen(type, avx512_load32(vector + i), avx512_load32(vector + i + 32));
}

AVX512_INLINE struct avx512_ints avx512_load_last_bytes(omendb_scalar type,
                                                        const unsigned char *vector, size_t dim)
{
    const size_t count = dim % AVX512_BLOCK;
    const uint64_t mask = avx512_first(count);
    const unsigned char *from = vector + dim - count;

    return avx512_widen(type, _mm256_maskz_loadu_epi8((__mmask32)mask, from),
                        _mm256_maskz_loadu_epi8((__mmask32)(mask >> 32), from + 32));
}

AVX512_INLINE struct avx512_int_sums avx512_int_step(omendb_metric metric,
                                                     struct avx512_int_sums sums,
                                                     struct avx512_ints query,
                                                     struct avx512_ints row)
{
    __m512i low, high;

    if (metric == OMENDB_L2) {
        low = _mm512_sub_epi16(query.low, row.low);
        high = _mm512_sub_epi16(query.high, row.high);
        low = _mm512_madd_epi16(low, low);
        high = _mm512_madd_epi16(high, high);
    } else {
        low = _mm512_madd_epi16(query.low, row.low);
        high = _mm512_madd_epi16(query.high, row.high);
    }
    sums.terms = _mm512_add_epi32(sums.terms, _mm512_add_epi32(low, high));
    if (metric == OMENDB_COSINE) {
        low = _mm512_madd_epi16(row.low, row.low);
        high = _mm512_madd_epi16(row.high, row.high);
        sums.squares = _mm512_add_epi32(sums.squares, _mm512_add_epi32(low, high));
    }
    return sums;
}

AVX512_INLINE struct avx512_int_sums avx512_zero_sums(void)
{
    const struct avx512_int_sums zero = {_mm512_setzero_si512(), _mm512_setzero_si512()};

    return zero;
}

AVX512_INLINE __m256i avx512_fold_ints(__m512i sum)
{
    return _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
}

AVX512_INLINE struct x86_int_sums avx512_join_ints(struct avx512_int_sums sums)
{
    const struct x86_int_sums out = {avx512_fold_ints(sums.terms), avx512_fold_ints(sums.squares)};

    return out;
}

AVX512_INLINE __m512i avx512_add_int_squares(omendb_metric metric, __m512i sum,
                                             struct avx512_ints block)
{
    if (metric != OMENDB_COSINE) {
        return sum;
    }
    return _mm512_add_epi32(sum, _mm512_add_epi32(_mm512_madd_epi16(block.low, block.low),
                                                  _mm512_madd_epi16(block.high, block.high)));
}

/* Also stores the sums of the squares of `a`, under cosine. */
AVX512_INLINE struct x86_int_sums avx512_int_sums(omendb_scalar type, omendb_metric metric,
                                                  const void *a, const void *b, size_t dim,
                                                  __m256i *squares_of_a)
{
    struct avx512_int_sums sums = avx512_zero_sums();
    __m512i own = _mm512_setzero_si512();
    struct avx512_ints block;
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        block = avx512_load_bytes(type, a, i);
        sums = avx512_int_step(metric, sums, block, avx512_load_bytes(type, b, i));
        own = avx512_add_int_squares(metric, own, block);
    }
    if (i < dim) {
        block = avx512_load_last_bytes(type, a, dim);
        sums = avx512_int_step(metric, sums, block, avx512_load_last_bytes(type, b, dim));
        own = avx512_add_int_squares(metric, own, block);
    }
    *squares_of_a = avx512_fold_ints(own);
    return avx512_join_ints(sums);
}

AVX512_INLINE float avx512_int_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                    const void *b, size_t dim)
{
    __m256i squares;
    const struct x86_int_sums sums = avx512_int_sums(type, metric, a, b, dim, &squares);

    return x86_finish_int(type, metric, sums, 0, squares);
}

AVX512_INLINE __m128 avx512_int_four(omendb_scalar type, omendb_metric metric, const void *query,
                                     double query_norm, const void *const *rows, size_t dim)
{
    const void *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct avx512_int_sums a = avx512_zero_sums(), b = a, c = a, d = a;
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        const struct avx512_ints block = avx512_load_bytes(type, query, i);
        a = avx512_int_step(metric, a, block, avx512_load_bytes(type, row_a, i));
        b = avx512_int_step(metric, b, block, avx512_load_bytes(type, row_b, i));
        c = avx512_int_step(metric, c, block, avx512_load_bytes(type, row_c, i));
        d = avx512_int_step(metric, d, block, avx512_load_bytes(type, row_d, i));
    }
    if (i < dim) {
        const struct avx512_ints block = avx512_load_last_bytes(type, query, dim);
        a = avx512_int_step(metric, a, block, avx512_load_last_bytes(type, row_a, dim));
        b = avx512_int_step(metric, b, block, avx512_load_last_bytes(type, row_b, dim));
        c = avx512_int_step(metric, c, block, avx512_load_last_bytes(type, row_c, dim));
        d = avx512_int_step(metric, d, block, avx512_load_last_bytes(type, row_d, dim));
    }
    return x86_finish_ints(type, metric, avx512_join_ints(a), avx512_join_ints(b),
                           avx512_join_ints(c), avx512_join_ints(d), 0, query_norm);
}

AVX512_INLINE void avx512_int_many(omendb_scalar type, omendb_metric metric, const void *query,
                                   const void *const *rows, size_t count, size_t dim, float *out)
{
    double query_norm = 0.0;
    __m256i squares;
    size_t i;

    if (metric == OMENDB_COSINE) {
        (void)avx512_int_sums(type, metric, query, query, dim, &squares);
        query_norm = x86_norm_of_ints(squares);
    }
    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        x86_store(out + i, count - i, avx512_int_four(type, metric, query, query_norm, group, dim));
    }
}

/* Three sums of 16 lanes of vpdpbusd. bytes: sums of the differences or of the row's bytes, which
 * complete the sums taken with a flipped sign. */
struct avx512vnni_sums {
    __m512i terms, squares, bytes;
};

AVX512VNNI_INLINE struct avx512vnni_sums avx512vnni_step(omendb_scalar type, omendb_metric metric,
                                                         struct avx512vnni_sums sums, __m512i query,
                                                         __m512i row)
{
    const __m512i flip = _mm512_set1_epi8((char)-128), ones = _mm512_set1_epi8(1);

    if (metric == OMENDB_L2) {
        const __m512i difference =
            type == OMENDB_I8
                ? _mm512_sub_epi8(_mm512_max_epi8(query, row), _mm512_min_epi8(query, row))
                : _mm512_sub_epi8(_mm512_max_epu8(query, row), _mm512_min_epu8(query, row));
        sums.terms =
            _mm512_dpbusd_epi32(sums.terms, difference, _mm512_xor_si512(difference, flip));
        sums.bytes = _mm512_dpbusd_epi32(sums.bytes, difference, ones);
        return sums;
    }
    if (type == OMENDB_I8) {
        const __m512i flipped = _mm512_xor_si512(row, flip);
        sums.terms = _mm512_dpbusd_epi32(sums.terms, flipped, query);
        if (metric == OMENDB_COSINE) {
            sums.squares = _mm512_dpbusd_epi32(sums.squares, flipped, row);
            sums.bytes = _mm512_dpbusd_epi32(sums.bytes, ones, row);
        }
    } else {
        const __m512i flipped = _mm512_xor_si512(row, flip);
        sums.terms = _mm512_dpbusd_epi32(sums.terms, query, flipped);
        if (metric == OMENDB_COSINE) {
            sums.squares = _mm512_dpbusd_epi32(sums.squares, row, flipped);
            sums.bytes = _mm512_dpbusd_epi32(sums.bytes, row, ones);
        }
    }
    return sums;
}

AVX512VNNI_INLINE struct x86_int_sums avx512vnni_join(omendb_scalar type, omendb_metric metric,
                                                      struct avx512vnni_sums sums)
{
    const __m512i shifted = _mm512_slli_epi32(sums.bytes, 7);
    struct x86_int_sums out;

    if (metric == OMENDB_L2) {
        sums.terms = _mm512_add_epi32(sums.terms, shifted);
    } else if (metric == OMENDB_COSINE) {
        sums.squares = type == OMENDB_I8 ? _mm512_sub_epi32(sums.squares, shifted)
                                         : _mm512_add_epi32(sums.squares, shifted);
    }
    out.terms = avx512_fold_ints(sums.terms);
    out.squares = avx512_fold_ints(sums.squares);
    return out;
}

AVX512VNNI_INLINE struct avx512vnni_sums avx512vnni_zero(void)
{
    const struct avx512vnni_sums zero = {_mm512_setzero_si512(), _mm512_setzero_si512(),
                                         _mm512_setzero_si512()};

    return zero;
}

AVX512VNNI_INLINE __m512i avx512vnni_load_last(const unsigned char *vector, size_t dim)
{
    const size_t count = dim % AVX512_BLOCK;

    return _mm512_maskz_loadu_epi8((__mmask64)avx512_first(count), vector + dim - count);
}

AVX512VNNI_INLINE struct avx512vnni_sums avx512vnni_sums(omendb_scalar type, omendb_metric metric,
                                                         const unsigned char *a,
                                                         const unsigned char *b, size_t dim)
{
    struct avx512vnni_sums sums = avx512vnni_zero();
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        sums = avx512vnni_step(type, metric, sums, avx512_load64(a + i), avx512_load64(b + i));
    }
    if (i < dim) {
        sums = avx512vnni_step(type, metric, sums, avx512vnni_load_last(a, dim),
                               avx512vnni_load_last(b, dim));
    }
    return sums;
}

/* What a call needs to know of its query. */
struct avx512vnni_query {
    uint32_t bias; /* completes the dot products */
    __m256i squares;
};

AVX512VNNI_INLINE struct avx512vnni_query
avx512vnni_prepare(omendb_scalar type, omendb_metric metric, const void *query, size_t dim)
{
    struct avx512vnni_query out = {0, _mm256_setzero_si256()};
    struct avx512vnni_sums own;
    __m256i bytes;
    uint32_t total;

    if (metric == OMENDB_L2) {
        return out;
    }
    own = avx512vnni_sums(type, OMENDB_COSINE, query, query, dim);
    bytes = avx512_fold_ints(own.bytes);
    total = (uint32_t)_mm_cvtsi128_si32(x86_add_ints(bytes, bytes, bytes, bytes));
    out.bias = type == OMENDB_I8 ? 0u - 128u * total : 128u * total;
    out.squares = avx512vnni_join(type, OMENDB_COSINE, own).squares;
    return out;
}

AVX512VNNI_INLINE float avx512vnni_int_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                            const void *b, size_t dim)
{
    const struct avx512vnni_query query = avx512vnni_prepare(type, metric, a, dim);
    const struct x86_int_sums sums =
        avx512vnni_join(type, metric, avx512vnni_sums(type, metric, a, b, dim));

    return x86_finish_int(type, metric, sums, query.bias, query.squares);
}

AVX512VNNI_INLINE __m128 avx512vnni_int_four(omendb_scalar type, omendb_metric metric,
                                             const unsigned char *query, uint32_t query_bias,
                                             double query_norm, const void *const *rows, size_t dim)
{
    const unsigned char *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct avx512vnni_sums a = avx512vnni_zero(), b = a, c = a, d = a;
    size_t i;

    for (i = 0; i + AVX512_BLOCK <= dim; i += AVX512_BLOCK) {
        const __m512i block = avx512_load64(query + i);
        a = avx512vnni_step(type, metric, a, block, avx512_load64(row_a + i));
        b = avx512vnni_step(type, metric, b, block, avx512_load64(row_b + i));
        c = avx512vnni_step(type, metric, c, block, avx512_load64(row_c + i));
        d = avx512vnni_step(type, metric, d, block, avx512_load64(row_d + i));
    }
    if (i < dim) {
        const __m512i block = avx512vnni_load_last(query, dim);
        a = avx512vnni_step(type, metric, a, block, avx512vnni_load_last(row_a, dim));
        b = avx512vnni_step(type, metric, b, block, avx512vnni_load_last(row_b, dim));
        c = avx512vnni_step(type, metric, c, block, avx512vnni_load_last(row_c, dim));
        d = avx512vnni_step(type, metric, d, block, avx512vnni_load_last(row_d, dim));
    }
    return x86_finish_ints(type, metric, avx512vnni_join(type, metric, a),
                           avx512vnni_join(type, metric, b), avx512vnni_join(type, metric, c),
                           avx512vnni_join(type, metric, d), query_bias, query_norm);
}

AVX512VNNI_INLINE void avx512vnni_int_many(omendb_scalar type, omendb_metric metric,
                                           const void *query, const void *const *rows, size_t count,
                                           size_t dim, float *out)
{
    const struct avx512vnni_query prepared = avx512vnni_prepare(type, metric, query, dim);
    const double query_norm = x86_norm_of_ints(prepared.squares);
    size_t i;

    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        x86_store(out + i, count - i,
                  avx512vnni_int_four(type, metric, query, prepared.bias, query_norm, group, dim));
    }
}

/* Adds the set bits of each 8 bytes: two table look-ups of 4 bits each byte, summed by vpsadbw. */
AVX512_INLINE __m512i avx512_count(__m512i sums, __m512i bits)
{
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i table = _mm512_set4_epi32(0x04030302, 0x03020201, 0x03020201, 0x02010100);
    const __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(bits, nibble));
    const __m512i high =
        _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(bits, 4), nibble));

    return _mm512_add_epi64(sums,
                            _mm512_sad_epu8(_mm512_add_epi8(low, high), _mm512_setzero_si512()));
}

KERNELS_AVX512 static float avx512_hamming_pair(const void *a, const void *b, size_t dim)
{
    const unsigned char *x = a, *y = b;
    const size_t bytes = (dim + 7) / 8;
    __m512i sums = _mm512_setzero_si512();
    __m256i folded;
    size_t i;

    for (i = 0; i + 64 <= bytes; i += 64) {
        sums = avx512_count(sums, _mm512_xor_si512(avx512_load64(x + i), avx512_load64(y + i)));
    }
    if (i < bytes) {
        const __mmask64 mask = (__mmask64)avx512_first(bytes - i);
        sums = avx512_count(sums, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, x + i),
                                                   _mm512_maskz_loadu_epi8(mask, y + i)));
    }
    folded = avx512_fold_ints(sums); /* the upper halves of the 64-bit sums are zero */
    return (float)_mm_cvtsi128_si32(x86_add_ints(folded, folded, folded, folded));
}

KERNELS_AVX512 static void avx512_hamming_many(const void *query, const void *const *rows,
                                               size_t count, size_t dim, float *out)
{
    size_t i;

    for (i = 0; i < count; i++) {
        out[i] = avx512_hamming_pair(query, rows[i], dim);
    }
}

KERNELS_DEFINE_TYPE(KERNELS_AVX512, avx512, float, f32, OMENDB_F32)
KERNELS_DEFINE_TYPE(KERNELS_AVX512, avx512, float, f16, OMENDB_F16)
KERNELS_DEFINE_TYPE(KERNELS_AVX512, avx512, float, bf16, OMENDB_BF16)
KERNELS_DEFINE_TYPE(KERNELS_AVX512, avx512, int, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(KERNELS_AVX512, avx512, int, u8, OMENDB_U8)
KERNELS_DEFINE_TYPE(KERNELS_AVX512VNNI, avx512vnni, int, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(KERNELS_AVX512VNNI, avx512vnni, int, u8, OMENDB_U8)

OMENDB_INTERNAL const struct kernel_table *kernels_avx512_table(void)
{
    static const struct kernel_table table = {
        "avx512",
        {
            [OMENDB_F32] = KERNELS_ROW(avx512, f32),
            [OMENDB_F16] = KERNELS_ROW(avx512, f16),
            [OMENDB_BF16] = KERNELS_ROW(avx512, bf16),
            [OMENDB_I8] = KERNELS_ROW(avx512, i8),
            [OMENDB_U8] = KERNELS_ROW(avx512, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(avx512),
        },
    };

    return &table;
}

OMENDB_INTERNAL const struct kernel_table *kernels_avx512vnni_table(void)
{
    static const struct kernel_table table = {
        "avx512vnni",
        {
            [OMENDB_F32] = KERNELS_ROW(avx512, f32),
            [OMENDB_F16] = KERNELS_ROW(avx512, f16),
            [OMENDB_BF16] = KERNELS_ROW(avx512, bf16),
            [OMENDB_I8] = KERNELS_ROW(avx512vnni, i8),
            [OMENDB_U8] = KERNELS_ROW(avx512vnni, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(avx512),
        },
    };

    return &table;
}

#undef AVX512_INLINE
#undef AVX512VNNI_INLINE
#undef AVX512_BLOCK

#endif

/* ==============================================================================================
 * kernels_neon.c
 * ============================================================================================== */

/* kernels_neon.c: NEON, which every 64-bit Arm processor has, and a second level with the dot
 * product instructions UDOT and SDOT (Neoverse N1 and Apple M1 onwards).
 *
 * What binds: two to four 16-byte FMAs of latency 4 and two or three 16-byte loads a cycle. 32
 * registers hold four rows of four chains each; a single pair uses the same four, so that the bits
 * agree. f16 is widened by FCVTL, bf16 by a shift. i8 and u8: UMULL or SMULL to 16 bits and a
 * pairwise accumulation to 32 (UADALP), or one UDOT or SDOT for 16 products. |a - b| of signed
 * bytes, taken by SABD, is right as an unsigned byte.
 *
 * The rest of a vector after the last whole block of 16 elements is copied into a zeroed block.
 *
 * Rejected: FP16 arithmetic, whose half-precision sums would break the error bound, and BFDOT,
 * which rounds differently from everything else; SVE, whose gain over four NEON pipes is nil at 128
 * bits. */

#if KERNELS_NEON

#include <arm_neon.h>
#include <string.h>

#define NEON_BLOCK 16 /* elements a step of all kernels */

struct neon_floats {
    float32x4_t a, b, c, d;
};

KERNELS_INLINE float32x4_t neon_load4(omendb_scalar type, const unsigned char *from)
{
    if (type == OMENDB_F32) {
        return vreinterpretq_f32_u8(vld1q_u8(from));
    }
    if (type == OMENDB_F16) {
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from)));
    }
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(from)), 16));
}

KERNELS_INLINE struct neon_floats neon_load(omendb_scalar type, const void *vector, size_t i)
{
    const size_t bytes = type == OMENDB_F32 ? 4 : 2;
    const unsigned char *from = (const unsigned char *)vector + i * bytes;
    struct neon_floats out;

    out.a = neon_load4(type, from);
    out.b = neon_load4(type, from + 4 * bytes);
    out.c = neon_load4(type, from + 8 * bytes);
    out.d = neon_load4(type, from + 12 * bytes);
    return out;
}

/* The last dim % NEON_BLOCK elements, and zeros. */
KERNELS_INLINE struct neon_floats neon_load_last(omendb_scalar type, const void *vector, size_t dim)
{
    const size_t bytes = type == OMENDB_F32 ? 4 : 2, count = dim % NEON_BLOCK;
    unsigned char copy[4 * NEON_BLOCK] = {0};

    memcpy(copy, (const unsigned char *)vector + (dim - count) * bytes, count * bytes);
    return neon_load(type, copy, 0);
}

/* Four chains of terms, or under cosine two of products and two of the row's squares. */
KERNELS_INLINE struct neon_floats neon_step(omendb_metric metric, struct neon_floats sums,
                                            struct neon_floats query, struct neon_floats row)
{
    if (metric == OMENDB_L2) {
        const float32x4_t a = vsubq_f32(query.a, row.a), b = vsubq_f32(query.b, row.b);
        const float32x4_t c = vsubq_f32(query.c, row.c), d = vsubq_f32(query.d, row.d);
        sums.a = vfmaq_f32(sums.a, a, a);
        sums.b = vfmaq_f32(sums.b, b, b);
        sums.c = vfmaq_f32(sums.c, c, c);
        sums.d = vfmaq_f32(sums.d, d, d);
    } else if (metric == OMENDB_INNER_PRODUCT) {
        sums.a = vfmaq_f32(sums.a, query.a, row.a);
        sums.b = vfmaq_f32(sums.b, query.b, row.b);
        sums.c = vfmaq_f32(sums.c, query.c, row.c);
        sums.d = vfmaq_f32(sums.d, query.d, row.d);
    } else {
        sums.a = vfmaq_f32(sums.a, query.a, row.a);
        sums.b = vfmaq_f32(sums.b, query.b, row.b);
        sums.c = vfmaq_f32(sums.c, row.a, row.a);
        sums.d = vfmaq_f32(sums.d, row.b, row.b);
        sums.a = vfmaq_f32(sums.a, query.c, row.c);
        sums.b = vfmaq_f32(sums.b, query.d, row.d);
        sums.c = vfmaq_f32(sums.c, row.c, row.c);
        sums.d = vfmaq_f32(sums.d, row.d, row.d);
    }
    return sums;
}

KERNELS_INLINE struct neon_floats neon_zero_chains(void)
{
    const float32x4_t zero = vdupq_n_f32(0.0f);
    const struct neon_floats out = {zero, zero, zero, zero};

    return out;
}

KERNELS_INLINE double neon_squares(struct neon_floats sums)
{
    return (double)vaddvq_f32(vaddq_f32(sums.c, sums.d));
}

/* query_norm is read under cosine only. */
KERNELS_INLINE float neon_finish(omendb_metric metric, struct neon_floats sums, double query_norm)
{
    const float32x4_t first = vaddq_f32(sums.a, sums.b), second = vaddq_f32(sums.c, sums.d);

    if (metric == OMENDB_COSINE) {
        return kernels_cosine((double)vaddvq_f32(first), query_norm, neon_squares(sums));
    }
    if (metric == OMENDB_L2) {
        return vaddvq_f32(vaddq_f32(first, second));
    }
    return 0.0f - vaddvq_f32(vaddq_f32(first, second));
}

KERNELS_INLINE struct neon_floats neon_float_sums(omendb_scalar type, omendb_metric metric,
                                                  const void *a, const void *b, size_t dim)
{
    struct neon_floats sums = neon_zero_chains();
    size_t i;

    for (i = 0; i + NEON_BLOCK <= dim; i += NEON_BLOCK) {
        sums = neon_step(metric, sums, neon_load(type, a, i), neon_load(type, b, i));
    }
    if (i < dim) {
        sums = neon_step(metric, sums, neon_load_last(type, a, dim), neon_load_last(type, b, dim));
    }
    return sums;
}

KERNELS_INLINE double neon_float_norm(omendb_scalar type, omendb_metric metric, const void *query,
                                      size_t dim)
{
    return metric == OMENDB_COSINE ? neon_squares(neon_float_sums(type, metric, query, query, dim))
                                   : 0.0;
}

KERNELS_INLINE float neon_float_pair(omendb_scalar type, omendb_metric metric, const void *a,
                                     const void *b, size_t dim)
{
    return neon_finish(metric, neon_float_sums(type, metric, a, b, dim),
                       neon_float_norm(type, metric, a, dim));
}

KERNELS_INLINE void neon_float_four(omendb_scalar type, omendb_metric metric, const void *query,
                                    double query_norm, const void *const *rows, size_t dim,
                                    float *out)
{
    const void *row_a = rows[0], *row_b = rows[1], *row_c = rows[2], *row_d = rows[3];
    struct neon_floats a = neon_zero_chains(), b = a, c = a, d = a;
    size_t i;

    for (i = 0; i + NEON_BLOCK <= dim; i += NEON_BLOCK) {
        const struct neon_floats block = neon_load(type, query, i);
        a = neon_step(metric, a, block, neon_load(type, row_a, i));
        b = neon_step(metric, b, block, neon_load(type, row_b, i));
        c = neon_step(metric, c, block, neon_load(type, row_c, i));
        d = neon_step(metric, d, block, neon_load(type, row_d, i));
    }
    if (i < dim) {
        const struct neon_floats block = neon_load_last(type, query, dim);
        a = neon_step(metric, a, block, neon_load_last(type, row_a, dim));
        b = neon_step(metric, b, block, neon_load_last(type, row_b, dim));
        c = neon_step(metric, c, block, neon_load_last(type, row_c, dim));
        d = neon_step(metric, d, block, neon_load_last(type, row_d, dim));
    }
    out[0] = neon_finish(metric, a, query_norm);
    out[1] = neon_finish(metric, b, query_norm);
    out[2] = neon_finish(metric, c, query_norm);
    out[3] = neon_finish(metric, d, query_norm);
}

KERNELS_INLINE void neon_float_many(omendb_scalar type, omendb_metric metric, const void *query,
                                    const void *const *rows, size_t count, size_t dim, float *out)
{
    const double query_norm = neon_float_norm(type, metric, query, dim);
    size_t i;

    for (i = 0; i < count; i += 4) {
        const void *padded[4];
        const void *const *group = kernels_group(rows, i, count, padded);
        float distances[4];
        neon_float_four(type, metric, query, query_norm, group, dim, distances);
        memcpy(out + i, distances, (count - i < 4 ? count - i : 4) * sizeof *out);
    }
}

/* Sums of terms, and under cosine of the row's squares; of signed ones as two's complement. */
struct neon_int_sums {
    uint32x4_t terms, squares;
};

KERNELS_INLINE uint8x16_t neon_load_last_bytes(const unsigned char *vector, size_t dim)
{
    unsigned char copy[NEON_BLOCK] = {0};

    memcpy(copy, vector + dim - dim % NEON_BLOCK, dim % NEON_BLOCK);
    return vld1q_u8(copy);
}

KERNELS_INLINE uint8x16_t neon_difference(omendb_scalar type, uint8x16_t a, uint8x16_t b)
{
    if (type == OMENDB_U8) {
        return vabdq_u8(a, b);
    }
    return vreinterpretq_u8_s8(vabdq_s8(vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b)));
}

KERNELS_INLINE uint32x4_t neon_add_products(omendb_scalar type, uint32x4_t sum, uint8x16_t a,
                                            uint8x16_t b)
{
    if (type == OMENDB_U8) {
        sum = vpadalq_u16(sum, vmull_u8(vget_low_u8(a), vget_low_u8(b)));
        return vpadalq_u16(sum, vmull_high_u8(a, b));
    } else {
        const int8x16_t x = vreinterpretq_s8_u8(a), y = vreinterpretq_s8_u8(b);
        int32x4_t total = vreinterpretq_s32_u32(sum);
        total = vpadalq_s16(total, vmull_s8(vget_low_s8(x), vget_low_s8(y)));
        return vreinterpretq_u32_s32(vpadalq_s16(total, vmull_high_s8(x, y)));
    }
}

KERNELS_INLINE struct neon_int_sums neon_int_step(omendb_scalar type, omendb_metric metric,
                                                  struct neon_int_sums sums, uint8x16_t query,
                                                  uint8x16_t row)
{
    if (metric == OMENDB_L2) {
        const uint8x16_t difference = neon_difference(type, query, row);
        sums.terms = neon_add_products(OMENDB_U8, sums.terms, difference, difference);
        return sums;
    }
    sums.terms = neon_add_products(type, sums.terms, query, row);
    if (metric == OMENDB_COSINE) {
        sums.squares = neon_add_products(type, sums.squares, row, row);
    }
    return sums;
}

KERNELS_INLINE struct neon_int_sums neon_zero_sums(void)
{
    const struct neon_int_sums zero = {vdupq_n_u32(0), vdupq_n_u32(0)};

    return zero;
}

KERNELS_INLINE float neon_int_finish(omendb_scalar type, omendb_metric metric,
                                     struct neon_int_sums sums, double query_norm)
{
    const uint32_t terms = vaddvq_u32(sums.terms);
    double total = (double)terms;

    if (metric == OMENDB_L2) {
        return (float)total;
    }
    if (type == OMENDB_I8) {
        total = (double)(int32_t)terms;
    }
    return metric == OMENDB_COSINE
               ? kernels_cosine(total, query_norm, (double)vaddvq_u32(sums.squares))
               : (float)(0.0 - total);
}

/* The bodies below are the same for both levels but for the instructions of a step, and a function
 * with a target attribute cannot be a parameter of one without; hence the macro. */
#define NEON_INT_BODIES(target, level, step)                                                       \
    target KERNELS_INLINE struct neon_int_sums level##_int_sums(                                   \
        omendb_scalar type, omendb_metric metric, const unsigned char *a, const unsigned char *b,  \
        size_t dim)                                                                                \
    {                                                                                              \
        struct neon_int_sums sums = neon_zero_sums();                                              \
        size_t i;                                                                                  \
                                                                                                   \
        for (i = 0; i + NEON_BLOCK <= dim; i += NEON_BLOCK) {                                      \
            sums = step(type, metric, sums, vld1q_u8(a + i), vld1q_u8(b + i));                     \
        }                                                                                          \
        if (i < dim) {                                                                             \
            sums = step(type, metric, sums, neon_load_last_bytes(a, dim),                          \
                        neon_load_last_bytes(b, dim));                                             \
        }                                                                                          \
        return sums;                                                                               \
    }                                                                                              \
                                                                                                   \
    target KERNELS_INLINE double level##_int_norm(omendb_scalar type, omendb_metric metric,        \
                                                  const void *query, size_t dim)                   \
    {                                                                                              \
        if (metric != OMENDB_COSINE) {                                                             \
            return 0.0;                                                                            \
        }                                                                                          \
        return (double)vaddvq_u32(level##_int_sums(type, metric, query, query, dim).squares);      \
    }                                                                                              \
                                                                                                   \
    target KERNELS_INLINE float level##_int_pair(omendb_scalar type, omendb_metric metric,         \
                                                 const void *a, const void *b, size_t dim)         \
    {                                                                                              \
        return neon_int_finish(type, metric, level##_int_sums(type, metric, a, b, dim),            \
                               level##_int_norm(type, metric, a, dim));                            \
    }                                                                                              \
                                                                                                   \
    target KERNELS_INLINE void level##_int_four(omendb_scalar type, omendb_metric metric,          \
                                                const unsigned char *query, double query_norm,     \
                                                const void *const *rows, size_t dim, float *out)   \
    {                                                                                              \
        const unsigned char *row_a = rows[0], *row_b = rows[1], *row_c = rows[2],                  \
                            *row_d = rows[3];                                                      \
        struct neon_int_sums a = neon_zero_sums(), b = a, c = a, d = a;                            \
        size_t i;                                                                                  \
                                                                                                   \
        for (i = 0; i + NEON_BLOCK <= dim; i += NEON_BLOCK) {                                      \
            const uint8x16_t block = vld1q_u8(query + i);                                          \
            a = step(type, metric, a, block, vld1q_u8(row_a + i));                                 \
            b = step(type, metric, b, block, vld1q_u8(row_b + i));                                 \
            c = step(type, metric, c, block, vld1q_u8(row_c + i));                                 \
            d = step(type, metric, d, block, vld1q_u8(row_d + i));                                 \
        }                                                                                          \
        if (i < dim) {                                                                             \
            const uint8x16_t block = neon_load_last_bytes(query, dim);                             \
            a = step(type, metric, a, block, neon_load_last_bytes(row_a, dim));                    \
            b = step(type, metric, b, block, neon_load_last_bytes(row_b, dim));                    \
            c = step(type, metric, c, block, neon_load_last_bytes(row_c, dim));                    \
            d = step(type, metric, d, block, neon_load_last_bytes(row_d, dim));                    \
        }                                                                                          \
        out[0] = neon_int_finish(type, metric, a, query_norm);                                     \
        out[1] = neon_int_finish(type, metric, b, query_norm);                                     \
        out[2] = neon_int_finish(type, metric, c, query_norm);                                     \
        out[3] = neon_int_finish(type, metric, d, query_norm);                                     \
    }                                                                                              \
                                                                                                   \
    target KERNELS_INLINE void level##_int_many(omendb_scalar type, omendb_metric metric,          \
                                                const void *query, const void *const *rows,        \
                                                size_t count, size_t dim, float *out)              \
    {                                                                                              \
        const double query_norm = level##_int_norm(type, metric, query, dim);                      \
        size_t i;                                                                                  \
                                                                                                   \
        for (i = 0; i < count; i += 4) {                                                           \
            const void *padded[4];                                                                 \
            const void *const *group = kernels_group(rows, i, count, padded);                      \
            float distances[4];                                                                    \
            level##_int_four(type, metric, query, query_norm, group, dim, distances);              \
            memcpy(out + i, distances, (count - i < 4 ? count - i : 4) * sizeof *out);             \
        }                                                                                          \
    }

NEON_INT_BODIES(, neon, neon_int_step)

static float neon_hamming_pair(const void *a, const void *b, size_t dim)
{
    const unsigned char *x = a, *y = b;
    const size_t bytes = (dim + 7) / 8;
    uint32x4_t sums = vdupq_n_u32(0);
    size_t i;

    for (i = 0; i + NEON_BLOCK <= bytes; i += NEON_BLOCK) {
        const uint8x16_t bits = vcntq_u8(veorq_u8(vld1q_u8(x + i), vld1q_u8(y + i)));
        sums = vpadalq_u16(sums, vpaddlq_u8(bits));
    }
    if (i < bytes) {
        const uint8x16_t bits =
            vcntq_u8(veorq_u8(neon_load_last_bytes(x, bytes), neon_load_last_bytes(y, bytes)));
        sums = vpadalq_u16(sums, vpaddlq_u8(bits));
    }
    return (float)vaddvq_u32(sums);
}

static void neon_hamming_many(const void *query, const void *const *rows, size_t count, size_t dim,
                              float *out)
{
    size_t i;

    for (i = 0; i < count; i++) {
        out[i] = neon_hamming_pair(query, rows[i], dim);
    }
}

KERNELS_DEFINE_TYPE(, neon, float, f32, OMENDB_F32)
KERNELS_DEFINE_TYPE(, neon, float, f16, OMENDB_F16)
KERNELS_DEFINE_TYPE(, neon, float, bf16, OMENDB_BF16)
KERNELS_DEFINE_TYPE(, neon, int, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(, neon, int, u8, OMENDB_U8)

OMENDB_INTERNAL const struct kernel_table *kernels_neon_table(void)
{
    static const struct kernel_table table = {
        "neon",
        {
            [OMENDB_F32] = KERNELS_ROW(neon, f32),
            [OMENDB_F16] = KERNELS_ROW(neon, f16),
            [OMENDB_BF16] = KERNELS_ROW(neon, bf16),
            [OMENDB_I8] = KERNELS_ROW(neon, i8),
            [OMENDB_U8] = KERNELS_ROW(neon, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(neon),
        },
    };

    return &table;
}

#if KERNELS_NEONDOT

#if defined(__ARM_FEATURE_DOTPROD)
#define NEONDOT
#elif defined(__clang__)
#define NEONDOT __attribute__((target("dotprod")))
#else
#define NEONDOT __attribute__((target("arch=armv8.2-a+dotprod")))
#endif

NEONDOT KERNELS_INLINE uint32x4_t neondot_add_products(omendb_scalar type, uint32x4_t sum,
                                                       uint8x16_t a, uint8x16_t b)
{
    if (type == OMENDB_U8) {
        return vdotq_u32(sum, a, b);
    }
    return vreinterpretq_u32_s32(
        vdotq_s32(vreinterpretq_s32_u32(sum), vreinterpretq_s8_u8(a), vreinterpretq_s8_u8(b)));
}

NEONDOT KERNELS_INLINE struct neon_int_sums neondot_int_step(omendb_scalar type,
                                                             omendb_metric metric,
                                                             struct neon_int_sums sums,
                                                             uint8x16_t query, uint8x16_t row)
{
    if (metric == OMENDB_L2) {
        const uint8x16_t difference = neon_difference(type, query, row);
        sums.terms = neondot_add_products(OMENDB_U8, sums.terms, difference, difference);
        return sums;
    }
    sums.terms = neondot_add_products(type, sums.terms, query, row);
    if (metric == OMENDB_COSINE) {
        sums.squares = neondot_add_products(type, sums.squares, row, row);
    }
    return sums;
}

NEON_INT_BODIES(NEONDOT, neondot, neondot_int_step)

KERNELS_DEFINE_TYPE(NEONDOT, neondot, int, i8, OMENDB_I8)
KERNELS_DEFINE_TYPE(NEONDOT, neondot, int, u8, OMENDB_U8)

OMENDB_INTERNAL const struct kernel_table *kernels_neondot_table(void)
{
    static const struct kernel_table table = {
        "neondotprod",
        {
            [OMENDB_F32] = KERNELS_ROW(neon, f32),
            [OMENDB_F16] = KERNELS_ROW(neon, f16),
            [OMENDB_BF16] = KERNELS_ROW(neon, bf16),
            [OMENDB_I8] = KERNELS_ROW(neondot, i8),
            [OMENDB_U8] = KERNELS_ROW(neondot, u8),
            [OMENDB_B1] = KERNELS_ROW_BITS(neon),
        },
    };

    return &table;
}

#undef NEONDOT

#endif

#undef NEON_BLOCK
#undef NEON_INT_BODIES

#endif

/* ==============================================================================================
 * kernels.c
 * ============================================================================================== */

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

/* The best level that runs, among those up to the one of that name. */
static const struct kernel_table *kernels_choose(const char *name)
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

/* ==============================================================================================
 * codes.c
 * ============================================================================================== */

/* codes.c: see codes.h. */

/* ==============================================================================================
 * codes.h
 * ============================================================================================== */

/* codes.h: vectors as one byte an element, for walking the graph.
 *
 * A walk waits for memory; a code is a quarter of an f32 vector, and integers are compared faster.
 * The hits of a walk over codes are compared again with the full vectors, so codes decide what is
 * found, never the distances that are reported.
 *
 *   L2             u8: round((x - low) / step), compared by squared L2
 *   cosine         the same over the vector scaled to length 1, whose squared L2 is 2 * (1 - cos)
 *   inner product  i8: round(x / step), compared by inner product; a query has a step of its own
 *
 * low and step belong to a segment. Values outside of what they cover are saturated, and whoever
 * codes is told when that is too often. Vectors of
 * integers that span no more than 255 are coded with a step of 1 and lose nothing.
 *
 * Rejected: a step for each vector (LVQ, arXiv 2304.04759): the correction terms cost more than the
 * last bit of precision gives, as hits are compared again anyway. */
#ifndef OMENDB_CODES_H
#define OMENDB_CODES_H

struct code_format {
    struct scalar_format vectors; /* what is coded: f32, f16 or bf16 */
    float low;
    float step; /* 0: there are no codes */
};

/* 1 for the element types that gain by it. */
OMENDB_INTERNAL int codes_apply_to(const struct scalar_format *vectors);

/* Bytes from one code to the next: of whole 32, the elements beyond `dim` are zero. */
OMENDB_INTERNAL size_t codes_stride(size_t dim);

OMENDB_INTERNAL const struct kernel *codes_kernel(const struct code_format *format);

/* A sample of vectors from which `low` and `step` are chosen. */
struct code_sample {
    struct memory *memory;
    float *values; /* `take` of each vector, one vector after the other */
    float *sorted; /* all of them; filled by codes_choose */
    size_t take, count, capacity;
    uint64_t random;
};
OMENDB_INTERNAL int codes_sample_begin(struct code_sample *sample, struct memory *memory);
/* Takes some elements of one more vector; more than CODES_SAMPLE_VECTORS are of no use. */
#define CODES_SAMPLE_VECTORS 1024
OMENDB_INTERNAL void codes_sample_add(struct code_sample *sample,
                                      const struct scalar_format *vectors, const void *vector);
/* The range that codes most vectors with the least error in proportion to their size, clipping
 * included. step 0: the values are too large, too small or too few. */
OMENDB_INTERNAL void codes_choose(struct code_sample *sample, const struct scalar_format *vectors,
                                  struct code_format *format);
OMENDB_INTERNAL void codes_sample_end(struct code_sample *sample);

/* How well a code stands for its vector. Poor: many elements are saturated, or hardly any levels
 * are used; the range was chosen for other vectors. */
enum code_quality { CODE_GOOD, CODE_EXACT, CODE_POOR };

/* out: codes_stride bytes. */
OMENDB_INTERNAL enum code_quality codes_encode(const struct code_format *format, const void *vector,
                                               uint8_t *out);
/* The same for a vector that is only compared with codes; 1 if the code is the vector. */
OMENDB_INTERNAL int codes_encode_query(const struct code_format *format, const void *vector,
                                       uint8_t *out);

/* Whether the distance between an exact query and an exact code is that of the vectors, to the last
 * bit. */
OMENDB_INTERNAL int codes_are_exact(const struct code_format *format);

#endif

/* codes.c, continued */

#define CODES_RUN         SCALAR_RUN /* elements converted at a time */
#define CODES_VECTOR_TAKE 64         /* elements of a vector that enter the sample */
#define CODES_CUTS        6
#define CODES_FEW_LEVELS  8 /* from the least to the most; of a sample's integers, too */
/* Part of the elements whose saturation makes a code poor; sparse vectors have many zeros, which a
 * range that begins there codes as its end. */
#define CODES_SATURATED_SHARE 2

OMENDB_INTERNAL int codes_apply_to(const struct scalar_format *vectors)
{
    return (vectors->scalar == OMENDB_F32 || vectors->scalar == OMENDB_F16 ||
            vectors->scalar == OMENDB_BF16) &&
           vectors->metric != OMENDB_HAMMING;
}

OMENDB_INTERNAL size_t codes_stride(size_t dim)
{
    return (dim + 31) / 32 * 32;
}

OMENDB_INTERNAL const struct kernel *codes_kernel(const struct code_format *format)
{
    return format->vectors.metric == OMENDB_INNER_PRODUCT
               ? kernels_for(OMENDB_I8, OMENDB_INNER_PRODUCT)
               : kernels_for(OMENDB_U8, OMENDB_L2);
}

/* ------------------------------------------------------------------ choosing low and step */

/* What the elements are multiplied by before they are coded. */
static float codes_unit(const struct scalar_format *vectors, const void *vector)
{
    float run[CODES_RUN];
    double squares = 0.0;
    if (vectors->metric != OMENDB_COSINE)
        return 1.0f;
    for (size_t at = 0; at < vectors->dim; at += CODES_RUN) {
        size_t count = vectors->dim - at < CODES_RUN ? vectors->dim - at : CODES_RUN;
        scalar_widen(vectors->scalar, vector, at, count, run);
        for (size_t i = 0; i < count; i++)
            squares += (double)run[i] * (double)run[i];
    }
    return squares > 0.0 ? (float)(1.0 / sqrt(squares)) : 1.0f;
}

OMENDB_INTERNAL int codes_sample_begin(struct code_sample *sample, struct memory *memory)
{
    memset(sample, 0, sizeof *sample);
    sample->memory = memory;
    sample->capacity = CODES_SAMPLE_VECTORS * CODES_VECTOR_TAKE;
    sample->values = memory_array(memory, sample->capacity * 2, sizeof *sample->values);
    if (sample->values == NULL)
        return OMENDB_NOMEM;
    sample->sorted = sample->values + sample->capacity;
    return OMENDB_OK;
}

OMENDB_INTERNAL void codes_sample_end(struct code_sample *sample)
{
    memory_free(sample->memory, sample->values, sample->capacity * 2 * sizeof *sample->values);
}

OMENDB_INTERNAL void codes_sample_add(struct code_sample *sample,
                                      const struct scalar_format *vectors, const void *vector)
{
    float unit = codes_unit(vectors, vector);
    size_t take = vectors->dim < CODES_VECTOR_TAKE ? vectors->dim : CODES_VECTOR_TAKE;
    sample->take = take;
    for (size_t i = 0; i < take && sample->count < sample->capacity; i++) {
        size_t element = i;
        float value;
        if (vectors->dim > CODES_VECTOR_TAKE) { /* any, of each of as many equal ranges */
            size_t first = i * vectors->dim / take, next = (i + 1) * vectors->dim / take;
            sample->random =
                sample->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            element = first + (size_t)(sample->random >> 33) % (next - first);
        }
        scalar_widen(vectors->scalar, vector, element, 1, &value);
        sample->values[sample->count++] = value * unit;
    }
}

static int codes_compare(const void *left, const void *right)
{
    const float a = *(const float *)left, b = *(const float *)right;
    return a < b ? -1 : a > b;
}

static int codes_all_integers(const struct code_sample *sample)
{
    for (size_t i = 0; i < sample->count; i++) {
        if (sample->values[i] != nearbyintf(sample->values[i]))
            return 0;
    }
    return 1;
}

/* Squared error of one vector's elements in proportion to their squared distances from the median
 * of all, at most 1; rounding counts as its mean. */
static double codes_loss_of(const struct code_sample *sample, size_t first, double low, double high,
                            double step)
{
    double error = 0.0, squares = 0.0, median = (double)sample->sorted[sample->count / 2];
    for (size_t i = first; i < first + sample->take; i++) {
        double value = (double)sample->values[i], beyond = fmax(low - value, value - high);
        error += beyond > 0.0 ? beyond * beyond : step * step / 12.0;
        squares += (value - median) * (value - median);
    }
    return error < squares ? error / squares : error > 0.0;
}

/* Summed over vectors, not over elements: a few vectors with huge elements are better coded badly
 * than all others coarsely. */
static double codes_loss(const struct code_sample *sample, double low, double high, double step)
{
    double loss = 0.0;
    for (size_t at = 0; at + sample->take <= sample->count; at += sample->take)
        loss += codes_loss_of(sample, at, low, high, step);
    return loss;
}

/* Under the inner product the range is symmetric, and 0 is coded as 0. */
static void codes_choose_cut(const struct code_sample *sample, int symmetric,
                             struct code_format *format)
{
    /* How much of the sample is cut off at either end: rare large values would cost all others
     * their precision. */
    static const double cuts[CODES_CUTS] = {0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2};
    double best = INFINITY;
    for (size_t i = 0; i < CODES_CUTS; i++) {
        size_t cut = (size_t)(cuts[i] * (double)(sample->count - 1));
        double low = (double)sample->sorted[cut];
        double high = (double)sample->sorted[sample->count - 1 - cut];
        double step, loss;
        if (symmetric) {
            high = fabs(low) > fabs(high) ? fabs(low) : fabs(high);
            low = -high;
        }
        step = (high - low) / (symmetric ? 254.0 : 255.0);
        loss = codes_loss(sample, low, high, step);
        if (step > 0.0 && loss < best) {
            best = loss;
            format->low = symmetric ? 0.0f : (float)low;
            format->step = (float)step;
        }
    }
}

OMENDB_INTERNAL void codes_choose(struct code_sample *sample, const struct scalar_format *vectors,
                                  struct code_format *format)
{
    int symmetric = vectors->metric == OMENDB_INNER_PRODUCT;
    *format = (struct code_format){*vectors, 0.0f, 0.0f};
    if (sample->count == 0)
        return;
    memcpy(sample->sorted, sample->values, sample->count * sizeof *sample->sorted);
    sort_array(sample->sorted, sample->count, sizeof *sample->sorted, codes_compare);
    float first = sample->sorted[0], last = sample->sorted[sample->count - 1];
    if (codes_all_integers(sample) && last - first >= (float)CODES_FEW_LEVELS &&
        last - first <= 255.0f && fabsf(first) < 16777216.0f && fabsf(last) < 16777216.0f &&
        (!symmetric || (first >= -127.0f && last <= 127.0f))) {
        /* What the sample has not shown is as likely below as above, but for the usual 0 to 255. */
        int is_byte = first >= 0.0f && last <= 255.0f;
        format->low =
            symmetric || is_byte ? 0.0f : first - floorf((255.0f - (last - first)) / 2.0f);
        format->step = 1.0f;
        return;
    }
    codes_choose_cut(sample, symmetric, format);
    if (!(format->step > 1e-30f && format->step < 1e30f && fabsf(format->low) < 1e30f))
        format->step = 0.0f;
}

/* ------------------------------------------------------------------ coding */

/* Not-a-number, which only a damaged file has, becomes the lowest code. */
static void codes_store_u8(const float *values, size_t count, float low, float inverse,
                           uint8_t *out)
{
    for (size_t i = 0; i < count; i++) {
        float code = (values[i] - low) * inverse + 0.5f;
        code = code > 0.0f ? code : 0.0f;
        code = code < 255.0f ? code : 255.0f;
        out[i] = (uint8_t)(int)code;
    }
}

static void codes_store_i8(const float *values, size_t count, float inverse, uint8_t *out)
{
    for (size_t i = 0; i < count; i++) {
        float code = values[i] * inverse + 127.5f;
        code = code > 0.0f ? code : 0.0f;
        code = code < 254.0f ? code : 254.0f;
        out[i] = (uint8_t)((int)code - 127);
    }
}

static int codes_encode_with(const struct code_format *format, float step, const void *vector,
                             uint8_t *out)
{
    const struct scalar_format *vectors = &format->vectors;
    float run[CODES_RUN], unit = codes_unit(vectors, vector);
    int symmetric = vectors->metric == OMENDB_INNER_PRODUCT;
    int exact = step == 1.0f && unit == 1.0f;
    for (size_t at = 0; at < vectors->dim; at += CODES_RUN) {
        size_t count = vectors->dim - at < CODES_RUN ? vectors->dim - at : CODES_RUN;
        scalar_widen(vectors->scalar, vector, at, count, run);
        if (symmetric)
            codes_store_i8(run, count, unit / step, out + at);
        else
            codes_store_u8(run, count, format->low / unit, unit / step, out + at);
        for (size_t i = 0; exact && i < count; i++)
            exact = symmetric ? run[i] == (float)(int8_t)out[at + i]
                              : run[i] == format->low + (float)out[at + i];
    }
    memset(out + vectors->dim, 0, codes_stride(vectors->dim) - vectors->dim);
    return exact;
}

/* Whether the code tells its vector apart from others of its kind. */
static int codes_is_poor(const uint8_t *code, size_t dim, int symmetric)
{
    size_t saturated = 0;
    int least = 255, most = 0;
    for (size_t i = 0; i < dim; i++) {
        int level = symmetric ? (int8_t)code[i] + 127 : code[i];
        saturated += level == 0 || level == (symmetric ? 254 : 255);
        least = level < least ? level : least;
        most = level > most ? level : most;
    }
    return saturated * CODES_SATURATED_SHARE > dim || most - least < CODES_FEW_LEVELS;
}

OMENDB_INTERNAL enum code_quality codes_encode(const struct code_format *format, const void *vector,
                                               uint8_t *out)
{
    if (codes_encode_with(format, format->step, vector, out))
        return CODE_EXACT;
    return codes_is_poor(out, format->vectors.dim, format->vectors.metric == OMENDB_INNER_PRODUCT)
               ? CODE_POOR
               : CODE_GOOD;
}

/* The largest magnitude of the elements. */
static float codes_largest(const struct scalar_format *vectors, const void *vector)
{
    float run[CODES_RUN], largest = 0.0f;
    for (size_t at = 0; at < vectors->dim; at += CODES_RUN) {
        size_t count = vectors->dim - at < CODES_RUN ? vectors->dim - at : CODES_RUN;
        scalar_widen(vectors->scalar, vector, at, count, run);
        for (size_t i = 0; i < count; i++)
            largest = fabsf(run[i]) > largest ? fabsf(run[i]) : largest;
    }
    return largest;
}

/* A factor of the query does not change the order of inner products, so a query uses all of its
 * bits. */
OMENDB_INTERNAL int codes_encode_query(const struct code_format *format, const void *vector,
                                       uint8_t *out)
{
    float step = format->step;
    if (format->vectors.metric == OMENDB_INNER_PRODUCT) {
        step = codes_largest(&format->vectors, vector) / 127.0f;
        step = step > FLT_MIN ? step : FLT_MIN;
    }
    return codes_encode_with(format, step, vector, out);
}

OMENDB_INTERNAL int codes_are_exact(const struct code_format *format)
{
    return format->vectors.metric == OMENDB_L2 && format->step == 1.0f &&
           format->vectors.dim <= 258; /* sums below 2^24 */
}

#undef CODES_RUN
#undef CODES_VECTOR_TAKE
#undef CODES_CUTS
#undef CODES_FEW_LEVELS
#undef CODES_SATURATED_SHARE

/* ==============================================================================================
 * graph.c
 * ============================================================================================== */

/* graph.c: where the graph's rows live: growing stores, levels, what a view sees, and the
 * structural check.
 *
 * Invariants of a graph under construction:
 * - Everything a row needs (link slots holding its own number, a level, upper blocks) is written by
 *   graph_reserve before graph_set_count shows the row with a release store. A view loads the
 * entry, then the count, then the upper count and the directories, each with acquire: so the
 * directories cover the count, and the count covers the entry.
 * - Memory of rows never moves. A directory that was outgrown is kept until the end.
 *
 * Levels are a hash of seed and row, compared with 2^64 / M, 2^64 / M^2, ...: the paper's
 * floor(-ln(u) / ln(M)) in integers, the same on every machine and in every order of insertion.
 *
 * Rejected: one mapping of the greatest size, reserved and committed step by step: the host's
 * allocator and its limit would not see it. Rejected: a lock a row, as hnswlib has it (40 bytes
 * each); 256 stripes do. */

/* ==============================================================================================
 * graph_internal.h
 * ============================================================================================== */

/* graph_internal.h: what the three files of the graph share: the keys that order rows, the scratch,
 * and the graph under construction.
 *
 * Keys. A candidate is one 64-bit number: distance, then row, then whether it was expanded. Floats
 * become unsigned numbers of the same order, so that one integer comparison decides, and a NaN out
 * of a damaged file has some place too: every loop that goes to smaller keys ends.
 *
 * Ties. The row part is row ^ mask. A search uses mask 0, so that equal distances are ordered by
 * row. The building uses the row that owns the list as the mask: rows at equal distance are then
 * compared by the XOR of their numbers, which is a metric of its own. So a million copies of one
 * vector are not a heap of equals of which all choose the same few as neighbours and leave the rest
 * unreachable, but points of a space that the same algorithm knows how to connect, with about
 * log2(n) links a row, at the same cost as any others. In building at most half of a pool may be
 * rows at one distance: a point beside a mass of copies would otherwise meet nothing but copies,
 * and be cut off from the points around it. */
#ifndef OMENDB_GRAPH_INTERNAL_H
#define OMENDB_GRAPH_INTERNAL_H

/* ==============================================================================================
 * graph.h
 * ============================================================================================== */

/* graph.h: the HNSW graph (Malkov and Yashunin, arXiv 1603.09320): building and walking.
 *
 * One kind of graph serves the growing memtable, the building of a merged segment, and (as a view
 * only) a sealed segment. A row is a uint32_t. Per row: its vector, `links_per_row` = 2 * M
 * neighbour slots at the base, a level, and for levels above 0 a run of `level` upper blocks of M
 * slots each. An empty slot holds the row's own number, so that no degree is stored and a walker,
 * which has marked the row as visited, skips it without a branch of its own.
 *
 * Memory order. A row's vector, level and own links are written before its number is stored
 * (release) in any other row's slot or as the entry point; a walker loads slots with acquire, so
 * whatever row it learns of is complete. Walkers never lock and accept a stale mix and duplicates.
 * Writers of one row's slots exclude each other by a striped lock. */
#ifndef OMENDB_GRAPH_H
#define OMENDB_GRAPH_H

/* ==============================================================================================
 * blocks.h
 * ============================================================================================== */

/* blocks.h: the one way to bytes of an immutable file. A file is a run of blocks of 16 KiB; each
 * has a CRC32C, kept in the footer that the manifest names, and is verified when it is first
 * touched, in both io modes:
 *   OMENDB_IO_MAP    base is the mapping; the first touch of a block verifies it in place.
 *   OMENDB_IO_PREAD  base is anonymous memory of the file's size; the first touch reads the block
 *                    into it and verifies.
 * Invariant: nobody dereferences base + offset before blocks_touch(offset, length) returned
 * OMENDB_OK at least once in the life of the object. */
#ifndef OMENDB_BLOCKS_H
#define OMENDB_BLOCKS_H

/* ==============================================================================================
 * storage.h
 * ============================================================================================== */

/* storage.h: files of one database. Wraps omendb_vfs so that each failure has a sentence with the
 * file's name and each byte and sync is counted; knows the names of files. Above this nobody calls
 * the vfs. */
#ifndef OMENDB_STORAGE_H
#define OMENDB_STORAGE_H

struct storage {
    const omendb_vfs *vfs;
    void *directory;
    struct memory *memory;
    uint32_t io;   /* OMENDB_IO_* */
    uint32_t sync; /* OMENDB_SYNC_*: OFF skips every sync, of files and directories */
    _Atomic uint64_t written_bytes;
    _Atomic uint64_t syncs;
    _Atomic uint64_t mapped_bytes;
    _Atomic uint32_t sync_failed; /* 1 for ever after a sync failed: the database must be reopened
                                     before it is written again */
};

enum storage_kind { STORAGE_WAL, STORAGE_SEGMENT, STORAGE_OVERLAY, STORAGE_MANIFEST };
#define STORAGE_NAME_BYTES 40

/* "wal-17", "seg-17", "ovl-17", "MANIFEST-17". */
OMENDB_INTERNAL void storage_name(enum storage_kind kind, uint64_t number,
                                  char name[STORAGE_NAME_BYTES]);
/* The reverse; 0 when the name is none of these. */
OMENDB_INTERNAL int storage_parse_name(const char *name, enum storage_kind *kind, uint64_t *number);

struct storage_file {
    void *handle; /* NULL: closed */
    char name[STORAGE_NAME_BYTES];
};
OMENDB_INTERNAL int storage_open(struct storage *storage, const char *name, int flags,
                                 struct storage_file *file);
OMENDB_INTERNAL int storage_close(struct storage *storage,
                                  struct storage_file *file); /* a closed one is OK */
OMENDB_INTERNAL int storage_size(struct storage *storage, struct storage_file *file,
                                 uint64_t *size);
OMENDB_INTERNAL int storage_read(struct storage *storage, struct storage_file *file,
                                 uint64_t offset, void *buffer, size_t size);
OMENDB_INTERNAL int storage_write(struct storage *storage, struct storage_file *file,
                                  uint64_t offset, const void *buffer, size_t size);
OMENDB_INTERNAL int storage_truncate(struct storage *storage, struct storage_file *file,
                                     uint64_t size);
OMENDB_INTERNAL int storage_allocate(struct storage *storage, struct storage_file *file,
                                     uint64_t size);
OMENDB_INTERNAL int storage_sync(struct storage *storage, struct storage_file *file);
OMENDB_INTERNAL int storage_sync_directory(struct storage *storage);
OMENDB_INTERNAL int storage_rename(struct storage *storage, const char *from, const char *to);
OMENDB_INTERNAL int storage_unlink(struct storage *storage, const char *name); /* not there: OK */

/* The first 64 bytes of a file, see format.h: zeroed with magic and version; the checksum, once the
 * kind's fields are in. */
OMENDB_INTERNAL void storage_header_begin(uint8_t *header, const char *magic);
OMENDB_INTERNAL void storage_header_end(uint8_t *header);
/* OMENDB_FORMAT: another magic, a later version, an unknown feature that forbids opening;
 * OMENDB_CORRUPT: the checksum. */
OMENDB_INTERNAL int storage_header_check(const char *name, const uint8_t *header,
                                         const char *magic);

#endif

/* blocks.h, continued */

#define BLOCK_SHIFT 14
#define BLOCK_BYTES (UINT64_C(1) << BLOCK_SHIFT)

/* `number` and `block` begin the checksum: a block in another place or of another file does not
 * match. */
OMENDB_INTERNAL uint32_t blocks_checksum(uint64_t number, uint64_t block, const void *data);

struct block_file {
    const uint8_t *base;
    uint64_t size;
    _Atomic uint64_t *verified;  /* a bit a block */
    _Atomic uint64_t unverified; /* blocks not verified yet; 0 makes every touch free */
    struct block_source *source; /* file, checksums, lock of the slow path; private to blocks.c */
};

/* Verifies all blocks of [offset, offset + length). OMENDB_OK, OMENDB_CORRUPT, OMENDB_IOERR. The
 * range is bounded here against the file, so that nothing outside is read, but callers must have
 * bounded it by a section: once all is verified touches are free. */
OMENDB_INTERNAL int blocks_touch_slow(struct block_file *file, uint64_t offset, uint64_t length);

/* The bytes will not be read again soon: a mapping gives its pages back (they come again when they
 * are touched). Nothing happens to files that are read into memory. */
OMENDB_INTERNAL void blocks_release(struct block_file *file, uint64_t offset, uint64_t length);

static inline int blocks_touch(struct block_file *file, uint64_t offset, uint64_t length)
{
    /* Acquire: the last decrement was a release, and each decrement read the one before it, so all
     * blocks are visible. */
    if (OMENDB_LIKELY(atomic_load_explicit(&file->unverified, memory_order_acquire) == 0))
        return OMENDB_OK;
    uint64_t first = offset >> BLOCK_SHIFT, last = (offset + length - 1) >> BLOCK_SHIFT;
    if (OMENDB_LIKELY(first == last && offset < file->size)) {
        uint64_t word = atomic_load_explicit(&file->verified[first >> 6], memory_order_acquire);
        if (OMENDB_LIKELY((word >> (first & 63)) & 1))
            return OMENDB_OK;
    }
    return blocks_touch_slow(file, offset, length);
}

/* Opens the data blocks [0, size) of `file`, whose number is in the checksums; reads none of them.
 * size: a multiple of BLOCK_BYTES. checksums: one a block, kept by the caller until blocks_close;
 * NULL: all blocks are taken as verified, and read now where they cannot be mapped. `file` is taken
 * over: kept where blocks are read, closed where they are mapped, left open on failure; with NULL
 * checksums it stays the caller's, and size may be any. */
OMENDB_INTERNAL int blocks_open(struct storage *storage, struct storage_file *file, uint64_t number,
                                uint64_t size, const uint32_t *checksums,
                                struct block_file *blocks);
OMENDB_INTERNAL void blocks_close(struct block_file *blocks); /* a zeroed one is OK */

/* Reads every block again, verified before or not, and gives `report` a sentence for each that is
 * bad. OMENDB_IOERR where one cannot be read, OMENDB_NOMEM. */
OMENDB_INTERNAL int blocks_check(struct block_file *blocks,
                                 void (*report)(void *context, const char *sentence),
                                 void *context);

#endif

/* graph.h, continued */

#define GRAPH_NO_ROW    UINT32_MAX
#define GRAPH_MAX_LEVEL 16
#define GRAPH_MAX_ROWS  (UINT32_C(1) << 31)

/* Rows of fixed stride in chunks that never move: address = chunks[row >> shift] + (row & mask) *
 * stride. One chunk (shift 31) for a section of a sealed segment. */
struct rows_view {
    uint8_t *const *chunks;
    uint32_t shift;
    uint32_t mask;
    size_t stride;
};

static inline uint8_t *rows_at(const struct rows_view *rows, uint32_t row)
{
    return rows->chunks[row >> rows->shift] + (size_t)(row & rows->mask) * rows->stride;
}

/* A growing array of rows. Readers take a view after they learned of a row (acquire); the writer is
 * one at a time. Granules of 64 rows carved from allocations that grow from 64 rows to about 1 MiB.
 * The directory is replaced when it grows; old ones are kept until the end, so that a view taken
 * earlier stays valid. */
#define ROWS_SHIFT 6
struct rows_store {
    struct memory *memory;
    size_t stride;
    _Atomic(uint8_t **) directory;
    uint32_t directory_capacity; /* in granules */
    uint32_t reserved;           /* rows; guarded by the writer */
    uint32_t first_rows;         /* rows of the first allocation, written once */
    struct rows_allocation *allocations;
};
OMENDB_INTERNAL void rows_store_init(struct rows_store *store, struct memory *memory,
                                     size_t stride);
OMENDB_INTERNAL int rows_store_reserve(struct rows_store *store,
                                       uint32_t rows); /* zeroed; OMENDB_NOMEM leaves it usable */
OMENDB_INTERNAL void rows_store_destroy(struct rows_store *store);
OMENDB_INTERNAL struct rows_view rows_store_view(const struct rows_store *store);

/* What a walk needs; plain values, cheap to copy. */
struct graph_view {
    struct rows_view vectors;
    struct rows_view links; /* uint32_t[links_per_row] */
    struct rows_view
        upper_index; /* uint32_t: first upper block of the row; meaningless at level 0 */
    struct rows_view upper_links; /* uint32_t[M] a block: block upper_index + (level - 1) is the
                                     row's at `level` */
    struct rows_view levels;      /* uint8_t */
    uint32_t count;               /* rows; every number read from a slot is checked against it */
    uint32_t upper_count;         /* upper blocks */
    uint32_t M;
    uint32_t links_per_row;
    uint32_t entry_row; /* GRAPH_NO_ROW: nothing is linked */
    uint32_t entry_level;
    size_t dim;
    const struct kernel *kernel;
    /* A sealed segment: blocks must be verified before use (blocks_touch). NULL file: nothing to
     * verify. A section with the offset UINT64_MAX is not in the file. */
    struct block_file *file;
    uint64_t vectors_offset, links_offset, upper_index_offset, upper_links_offset, levels_offset;
};

struct graph_hit {
    float distance;
    uint32_t row;
};

/* Which rows may be returned. Rows that may not are still walked through. */
struct graph_filter {
    uint32_t row_limit;                                /* rows at or beyond are not returned */
    uint32_t excluded_row;                             /* not returned; GRAPH_NO_ROW: none */
    int (*visible)(const void *context, uint32_t row); /* NULL: all */
    const void *context;
};

struct graph_counters {
    uint64_t expanded;
    uint64_t distances;
};

/* Working memory of one walk at a time: visited marks, pools. Grows on demand, is kept between
 * walks. */
struct graph_scratch;
OMENDB_INTERNAL struct graph_scratch *
graph_scratch_create(struct memory *memory); /* NULL: no memory */
OMENDB_INTERNAL void graph_scratch_destroy(struct graph_scratch *scratch);

/* How far a walk goes. With a stretch of 0 it ends when the nearest row that is not expanded is
 * farther than the worst of the `ef` nearest returnable rows found. With a greater one it ends also
 * when that row is farther than
 *
 *     bound = d + (stretch - 1) * |d - origin|
 *
 * where d is the distance of the k-th nearest returnable row found so far, and keeps nothing beyond
 * the bound (Distance Adaptive Beam Search, arXiv 2505.15636); `ef` is then a cap. Easy queries
 * thus end early and hard ones go on. The bound grows with the stretch, from d itself at 1.
 *
 * origin: the distance from which the stretch counts, 0 for squared L2, cosine and Hamming, so that
 * the bound is stretch * d (of squared L2: stretch is the square of the ratio of lengths). Inner
 * products are negative and have no natural zero: with -(|query| * |longest row|), which none is
 * below, and rows of one length a stretch means what it means for cosine; with 0 the bound of d < 0
 * is (2 - stretch) * d. */
struct graph_effort {
    size_t ef;
    size_t k; /* from 1 to ef; read when there is a stretch */
    float stretch;
    float origin;
};

/* The effort->ef nearest returnable rows that a walk finds, ascending by (distance, row); with a
 * stretch maybe fewer, of which the first k are meant. hits: effort->ef places. filter: NULL: all.
 * counters: added to; NULL: none. Returns OMENDB_OK, OMENDB_NOMEM, OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_INTERNAL int graph_search(const struct graph_view *view, struct graph_scratch *scratch,
                                 const void *query, const struct graph_effort *effort,
                                 const struct graph_filter *filter, struct graph_hit *hits,
                                 size_t *count, struct graph_counters *counters);

/* The `k` nearest returnable rows among [first, last), merged into `hits`, which holds *count
 * ascending hits (at most k) already: exact. The same returns. */
OMENDB_INTERNAL int graph_scan(const struct graph_view *view, struct graph_scratch *scratch,
                               const void *query, uint32_t first, uint32_t last, size_t k,
                               const struct graph_filter *filter, struct graph_hit *hits,
                               size_t *count, struct graph_counters *counters);

/* A graph under construction. */
struct graph_config {
    uint32_t M;
    uint32_t ef_construction;
    uint64_t seed;
    size_t dim;
    size_t vector_bytes;
    const struct kernel *kernel;
};

struct graph;

/* vectors: NULL: the graph keeps them itself (see graph_vector); else a view of all rows that will
 * ever be, borrowed until destroyed, with `vectors_file` to verify blocks through (or NULL) and
 * `vectors_offset` of its section. */
OMENDB_INTERNAL int graph_create(struct memory *memory, const struct graph_config *config,
                                 const struct rows_view *vectors, struct block_file *vectors_file,
                                 uint64_t vectors_offset, struct graph **graph);
OMENDB_INTERNAL void graph_destroy(struct graph *graph);

/* Makes room for rows [0, rows), their links, and assigns their levels (a hash of seed and row, so
 * independent of the order of insertion) and upper blocks: after it nothing needs memory but the
 * scratch. One thread at a time; walkers may run. */
OMENDB_INTERNAL int graph_reserve(struct graph *graph, uint32_t rows);

/* Address of the row's own vector (graphs that keep them); the caller writes it before graph_insert
 * or graph_set_count shows it. */
OMENDB_INTERNAL uint8_t *graph_vector(struct graph *graph, uint32_t row);

/* Rows [0, count) hold vectors (release). Rows are linked later, by graph_insert. */
OMENDB_INTERNAL void graph_set_count(struct graph *graph, uint32_t count);

/* Links one row. Any number of threads, each with its own scratch and row; walkers may run. Row <
 * count; once a row. Returns OMENDB_OK, OMENDB_NOMEM (nothing linked), OMENDB_CORRUPT,
 * OMENDB_IOERR. */
OMENDB_INTERNAL int graph_insert(struct graph *graph, struct graph_scratch *scratch, uint32_t row);

/* Takes over a finished graph: row r of `source` ([0, source->count), all linked) becomes
 * old_to_new[r], or is dropped (GRAPH_NO_ROW). Kept rows keep their levels (call graph_reserve
 * afterwards for the rest; rows of `graph` that receive one must be [0, kept)). Links to dropped
 * rows are replaced: candidates are the remaining neighbours and, through dropped ones, their kept
 * neighbours, picked by the same heuristic as in building. Threads: split by calling
 * graph_adopt_begin once, then graph_adopt_rows for disjoint ranges of source rows from any
 * threads, then graph_adopt_end, before which the vectors of rows [0, kept) must be there; it shows
 * them. */
OMENDB_INTERNAL int graph_adopt_begin(struct graph *graph, const struct graph_view *source,
                                      const uint32_t *old_to_new, uint32_t kept);
OMENDB_INTERNAL int graph_adopt_rows(struct graph *graph, const struct graph_view *source,
                                     const uint32_t *old_to_new, struct graph_scratch *scratch,
                                     uint32_t first, uint32_t last);
OMENDB_INTERNAL int graph_adopt_end(struct graph *graph);

/* Takes all rows from `rows` on out of the lists of those before: of an insertion that failed
 * half-way, and of rows that were linked ahead of it, nothing is left there. No insertion at the
 * same time; walkers may go on. */
OMENDB_INTERNAL void graph_cut(struct graph *graph, uint32_t rows);

/* Makes sure that the base has a path from the entry to each of rows [0, indexed), all linked: the
 * few that lost their last incoming link are linked again. No insertion at the same time. Returns
 * OMENDB_OK, OMENDB_NOMEM, OMENDB_CORRUPT, OMENDB_IOERR. */
OMENDB_INTERNAL int graph_repair(struct graph *graph, struct graph_scratch *scratch,
                                 uint32_t indexed);

/* What walkers may use now: count, entry and stores are loaded in the order that makes every number
 * reachable from them safe. */
OMENDB_INTERNAL void graph_get_view(const struct graph *graph, struct graph_view *view);

/* Structural check of a view: every link < count, levels <= GRAPH_MAX_LEVEL, upper blocks in
 * bounds, entry valid, how many of rows [0, indexed) cannot be reached from the entry at the base.
 * Calls `report` for each kind of defect with a sentence. OMENDB_CORRUPT if there was one
 * other than rows that cannot be reached (which graph_repair rules out and concurrent insertion
 * does not). */
OMENDB_INTERNAL int graph_check(const struct graph_view *view, uint32_t indexed,
                                struct memory *memory,
                                void (*report)(void *context, const char *sentence), void *context);

#endif

/* graph_internal.h, continued */

/* ==============================================================================================
 * prefetch.h
 * ============================================================================================== */

/* prefetch.h: asks for memory that is about to be read.
 *
 * Assembly, because GCC 12 takes a static function that only prefetches for a pure one and drops
 * the calls. */
#ifndef OMENDB_PREFETCH_H
#define OMENDB_PREFETCH_H

static inline void prefetch_line(const void *address)
{
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __asm__ volatile("prefetcht0 %0" : : "m"(*(const char *)address));
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
    __asm__ volatile("prfm pldl1keep, [%0]" : : "r"(address));
#else
    (void)address;
#endif
}

/* The hardware follows longer runs by itself. */
#define PREFETCH_MAX_BYTES 1024

static inline void prefetch_bytes(const void *address, size_t bytes)
{
    const char *from = (const char *)address;
    bytes = bytes < PREFETCH_MAX_BYTES ? bytes : PREFETCH_MAX_BYTES;
    for (size_t i = 0; i < bytes; i += OMENDB_CACHE_LINE)
        prefetch_line(from + i);
}

#endif

/* graph_internal.h, continued */

/* An offset of a graph_view with a file whose section is not in that file: nothing to verify. */
#define GRAPH_NOT_IN_FILE UINT64_MAX

#define GRAPH_KEY_NONE     UINT64_MAX
#define GRAPH_KEY_EXPANDED UINT64_C(1)
#define GRAPH_ROW_MASK     (GRAPH_MAX_ROWS - 1)

/* Adding zero makes -0 and +0 equal. */
static inline uint64_t graph_key(float distance, uint32_t masked_row)
{
    const float positive_zero = distance + 0.0f;
    uint32_t bits;

    memcpy(&bits, &positive_zero, sizeof bits);
    bits ^= (uint32_t)((int32_t)bits >> 31) | UINT32_C(0x80000000);
    return (uint64_t)bits << 32 | (uint64_t)masked_row << 1;
}

static inline uint32_t graph_key_row(uint64_t key, uint32_t mask)
{
    return ((uint32_t)key >> 1) ^ mask;
}

static inline float graph_key_distance(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);
    float distance;

    bits ^= (uint32_t)((int32_t)~bits >> 31) | UINT32_C(0x80000000);
    memcpy(&distance, &bits, sizeof distance);
    return distance;
}

/* Slots are plain uint32_t in memory and in files; a uint32_t and its atomic have one
 * representation on every platform with a lock-free 32-bit atomic. */
_Static_assert(sizeof(_Atomic uint32_t) == sizeof(uint32_t), "a slot is a lock-free atomic");

static inline uint32_t graph_slot_load(const uint32_t *slot)
{
    return atomic_load_explicit((const _Atomic uint32_t *)slot, memory_order_acquire);
}

static inline void graph_slot_store(uint32_t *slot, uint32_t row)
{
    atomic_store_explicit((_Atomic uint32_t *)slot, row, memory_order_release);
}

/* The distances of one hop are computed together. */
struct graph_hop {
    uint32_t count;
    uint32_t *rows;
    const void **vectors;
};

struct graph_keys {
    uint64_t *keys;
    size_t count;
    size_t capacity;
};

struct graph_scratch {
    struct memory *memory;
    uint64_t *marks; /* a bit a row; all zero between walks */
    size_t mark_words;
    uint32_t *touched; /* marked rows, to clear */
    size_t touched_count;
    size_t touched_capacity;
    int touched_lost;       /* not all are in `touched` */
    struct graph_keys pool; /* the best so far; sorted, or a heap with the worst on top when wide */
    struct graph_keys nearest; /* a heap of the best k, with the worst on top; only when wide */
    struct graph_keys pending; /* a heap with the nearest on top: to expand, but not in the pool */
    void *hop_block;           /* the arrays below */
    size_t hop_bytes;
    uint32_t hop_capacity;
    struct graph_hop hops[2];
    float *distances;
    const void **selected_vectors;
    uint32_t *selected;
    uint32_t *covers; /* of the rows that the heuristic rejected, in hops[1]: the chosen row that is
                         nearer */
};

OMENDB_INTERNAL int graph_keys_reserve(struct memory *memory, struct graph_keys *keys,
                                       size_t capacity);

/* Lists have at most 512 slots (M at most 256): a walk's queue and two lists always fit. */
#define GRAPH_TOUCHED_LEAST 2048

/* Room for lists of `links` rows and one more. */
OMENDB_INTERNAL int graph_scratch_reserve_hop(struct graph_scratch *scratch, uint32_t links);
OMENDB_INTERNAL int graph_scratch_reserve_marks(struct graph_scratch *scratch, uint32_t rows);
OMENDB_INTERNAL void graph_scratch_clear_marks(struct graph_scratch *scratch);

/* Marks the row; 1 if it was not before. */
static inline uint32_t graph_mark(uint64_t *marks, uint32_t row)
{
    uint64_t word = marks[row >> 6];
    uint32_t fresh;
#if defined(__x86_64__) && defined(__GCC_ASM_FLAG_OUTPUTS__)
    __asm__("btsq %2, %0" : "+r"(word), "=@ccnc"(fresh) : "r"((uint64_t)row));
#else
    fresh = (uint32_t)(~word >> (row & 63)) & 1;
    word |= UINT64_C(1) << (row & 63);
#endif
    marks[row >> 6] = word;
    return fresh;
}

/* The same, remembered for graph_scratch_clear_marks. */
static inline int graph_scratch_mark(struct graph_scratch *scratch, uint32_t row)
{
    if (!graph_mark(scratch->marks, row)) {
        return 0;
    }
    if (scratch->touched_count < scratch->touched_capacity) {
        scratch->touched[scratch->touched_count++] = row;
    } else {
        scratch->touched_lost = 1;
    }
    return 1;
}

/* One walk's terms. */
struct graph_walk_terms {
    const struct graph_view *view;
    struct graph_scratch *scratch;
    const void *query;
    uint32_t level;
    uint32_t tie_mask;
    size_t ef;
    size_t tie_limit; /* rows at one distance that the pool holds; 0: any number */
    const struct graph_filter *filter;
    struct graph_counters *counters;
    size_t k; /* as in graph_effort; no stretch: by ef alone */
    float stretch;
    float origin;
};

/* From `start` (a key) at terms->level: leaves the best keys, ascending, in scratch->pool. */
OMENDB_INTERNAL int graph_walk(const struct graph_walk_terms *terms, uint64_t start);

/* From the view's entry greedily down to terms->level: the key of the row reached; GRAPH_KEY_NONE
 * in an empty graph. */
OMENDB_INTERNAL int graph_walk_descend(const struct graph_walk_terms *terms, uint64_t *reached);

/* The list of a row at a level; *length 0 where it has none (only damaged files ask for that). */
OMENDB_INTERNAL int graph_view_slots(const struct graph_view *view, uint32_t row, uint32_t level,
                                     uint32_t **slots, uint32_t *length);

/* Whether bytes of the view need blocks_touch at all; callers ask once a walk. */
static inline int graph_view_verifies(const struct graph_view *view)
{
    return view->file != NULL &&
           atomic_load_explicit(&view->file->unverified, memory_order_acquire) != 0;
}

static inline int graph_view_touch(const struct graph_view *view, uint64_t section, uint64_t index,
                                   size_t bytes)
{
    if (view->file == NULL || section == GRAPH_NOT_IN_FILE) {
        return OMENDB_OK;
    }
    return blocks_touch(view->file, section + index * bytes, bytes);
}

static inline int graph_view_touch_vector(const struct graph_view *view, uint32_t row)
{
    return graph_view_touch(view, view->vectors_offset, row, view->vectors.stride);
}

/* A power of two. */
#define GRAPH_STRIPES 256

struct graph {
    struct memory *memory;
    struct graph_config config;
    uint32_t links_per_row;
    int keeps_vectors;
    struct rows_view borrowed_vectors;
    struct block_file *vectors_file;
    uint64_t vectors_offset;
    struct rows_store vectors;
    struct rows_store links;
    struct rows_store upper_index;
    struct rows_store upper_links;
    struct rows_store levels;
    uint32_t reserved; /* rows that have links and a level; guarded by the one that reserves */
    uint32_t adopted;  /* rows taken over; between graph_adopt_begin and graph_adopt_end */
    _Atomic uint32_t count;
    _Atomic uint32_t upper_count;
    _Atomic uint64_t entry; /* level << 32 | row, or GRAPH_ENTRY_NONE; written under entry_lock */
    struct platform_mutex entry_lock; /* taken alone */
    struct platform_mutex
        stripes[GRAPH_STRIPES]; /* writers of a row's slots; at most one is held at a time */
};

#define GRAPH_ENTRY_NONE UINT64_MAX

/* Makes the row the entry if it is the first or its level is above the entry's; 1 if it was the
 * first. */
OMENDB_INTERNAL int graph_offer_entry(struct graph *graph, uint32_t row, uint32_t level);

/* Makes room for rows up to `rows`; levels[i] is that of row graph->reserved + i; NULL: by the
 * hash. */
OMENDB_INTERNAL int graph_reserve_levels(struct graph *graph, uint32_t rows, const uint8_t *levels);

/* Marks in `reached` (a bit a row) what can be reached at the base from `start`, adds to *found how
 * many were new. queue: view->count places. */
OMENDB_INTERNAL int graph_view_reach(const struct graph_view *view, uint32_t start,
                                     uint64_t *reached, uint32_t *queue, uint32_t *found);

#endif

/* graph.c, continued */

/* Stores */

#define STORE_GRANULE   ((uint32_t)1 << ROWS_SHIFT)
#define STORE_MAX_STEP  ((size_t)32 << 20)
#define STORE_FULL_STEP ((size_t)1 << 20)

/* Heads the list of everything a store owns: runs of granules (aligned) and directories. */
struct rows_allocation {
    struct rows_allocation *next;
    void *block;
    size_t size;
    int aligned;
};

OMENDB_INTERNAL void rows_store_init(struct rows_store *store, struct memory *memory, size_t stride)
{
    memset(store, 0, sizeof *store);
    store->memory = memory;
    store->stride = stride;
    atomic_init(&store->directory, NULL);
}

static void *rows_store_allocate(struct rows_store *store, size_t size, int aligned)
{
    struct rows_allocation *node = memory_alloc(store->memory, sizeof *node);

    if (node == NULL) {
        return NULL;
    }
    node->block =
        aligned ? memory_alloc_aligned(store->memory, size) : memory_alloc(store->memory, size);
    if (node->block == NULL) {
        memory_free(store->memory, node, sizeof *node);
        return NULL;
    }
    node->size = size;
    node->aligned = aligned;
    node->next = store->allocations;
    store->allocations = node;
    return node->block;
}

static int rows_store_grow_directory(struct rows_store *store, uint32_t granules)
{
    uint8_t **old = atomic_load_explicit(&store->directory, memory_order_relaxed);
    uint32_t capacity = store->directory_capacity * 2;
    uint8_t **fresh;

    if (granules <= store->directory_capacity) {
        return OMENDB_OK;
    }
    if (capacity < granules) {
        capacity = granules;
    }
    fresh = rows_store_allocate(store, memory_multiply(capacity, sizeof *fresh), 0);
    if (fresh == NULL) {
        return OMENDB_NOMEM;
    }
    if (store->reserved != 0) {
        memcpy(fresh, old, (store->reserved >> ROWS_SHIFT) * sizeof *fresh);
    }
    store->directory_capacity = capacity;
    atomic_store_explicit(&store->directory, fresh, memory_order_release);
    return OMENDB_OK;
}

/* How many granules to take when `missing` are needed and `have` are there: at least half as many
 * again while the store is small, an eighth (which soon is a huge page) when it is large. */
static uint32_t rows_store_step(const struct rows_store *store, uint32_t have, uint32_t missing)
{
    const size_t granule_bytes = store->stride << ROWS_SHIFT;
    size_t bytes = (size_t)have * granule_bytes / 2;
    uint32_t step;

    if (bytes > STORE_FULL_STEP) {
        bytes = (size_t)have * granule_bytes / 8;
        bytes = bytes < STORE_FULL_STEP ? STORE_FULL_STEP : bytes;
        bytes = bytes > STORE_MAX_STEP ? STORE_MAX_STEP : bytes;
    }
    step = (uint32_t)(bytes / granule_bytes);
    return step > missing ? step : missing;
}

OMENDB_INTERNAL int rows_store_reserve(struct rows_store *store, uint32_t rows)
{
    const uint32_t have = store->reserved >> ROWS_SHIFT;
    const uint32_t needed = (rows >> ROWS_SHIFT) + ((rows & (STORE_GRANULE - 1)) != 0);
    const size_t granule_bytes = store->stride << ROWS_SHIFT;
    uint32_t step;
    uint8_t *block, **directory;

    if (needed <= have) {
        return OMENDB_OK;
    }
    step = rows_store_step(store, have, needed - have);
    if (rows_store_grow_directory(store, have + step) != OMENDB_OK) {
        return OMENDB_NOMEM;
    }
    block = rows_store_allocate(store, memory_multiply(step, granule_bytes), 1);
    if (block == NULL) {
        return OMENDB_NOMEM;
    }
    directory = atomic_load_explicit(&store->directory, memory_order_relaxed);
    for (uint32_t i = 0; i < step; i++) {
        directory[have + i] = block + i * granule_bytes;
    }
    if (have == 0) {
        store->first_rows = step << ROWS_SHIFT;
    }
    store->reserved = (have + step) << ROWS_SHIFT;
    return OMENDB_OK;
}

OMENDB_INTERNAL void rows_store_destroy(struct rows_store *store)
{
    struct rows_allocation *node = store->allocations;

    while (node != NULL) {
        struct rows_allocation *next = node->next;
        if (node->aligned) {
            memory_free_aligned(store->memory, node->block, node->size);
        } else {
            memory_free(store->memory, node->block, node->size);
        }
        memory_free(store->memory, node, sizeof *node);
        node = next;
    }
    store->allocations = NULL;
}

OMENDB_INTERNAL struct rows_view rows_store_view(const struct rows_store *store)
{
    struct rows_view view;

    view.chunks = atomic_load_explicit(&store->directory, memory_order_acquire);
    view.shift = ROWS_SHIFT;
    view.mask = STORE_GRANULE - 1;
    view.stride = store->stride;
    return view;
}

/* Of rows below `count`. A store whose first allocation holds them all, as after reserving for a
 * merge, is one chunk: the directory then costs a walk nothing. first_rows is written before
 * `count` is shown and never again. */
static struct rows_view rows_store_view_of(const struct rows_store *store, uint32_t count)
{
    struct rows_view view = rows_store_view(store);

    if (count != 0 && count <= store->first_rows) {
        view.shift = 31;
        view.mask = GRAPH_ROW_MASK;
    }
    return view;
}

/* Graphs */

static int graph_create_locks(struct graph *graph)
{
    uint32_t made = 0;
    int code = platform_mutex_init(&graph->entry_lock);

    if (code != OMENDB_OK) {
        return code;
    }
    while (made < GRAPH_STRIPES && code == OMENDB_OK) {
        code = platform_mutex_init(&graph->stripes[made]);
        made += code == OMENDB_OK;
    }
    if (code != OMENDB_OK) {
        while (made > 0) {
            platform_mutex_destroy(&graph->stripes[--made]);
        }
        platform_mutex_destroy(&graph->entry_lock);
    }
    return code;
}

OMENDB_INTERNAL int graph_create(struct memory *memory, const struct graph_config *config,
                                 const struct rows_view *vectors, struct block_file *vectors_file,
                                 uint64_t vectors_offset, struct graph **graph)
{
    struct graph *made = memory_zalloc(memory, sizeof *made);

    assert(config->M >= 2 && config->kernel != NULL);
    *graph = NULL;
    if (made == NULL) {
        return OMENDB_NOMEM;
    }
    if (graph_create_locks(made) != OMENDB_OK) {
        memory_free(memory, made, sizeof *made);
        return OMENDB_NOMEM;
    }
    made->memory = memory;
    made->config = *config;
    made->links_per_row = 2 * config->M;
    made->keeps_vectors = vectors == NULL;
    if (vectors != NULL) {
        made->borrowed_vectors = *vectors;
    }
    made->vectors_file = vectors_file;
    made->vectors_offset = vectors_offset;
    rows_store_init(&made->vectors, memory, config->vector_bytes);
    rows_store_init(&made->links, memory, made->links_per_row * sizeof(uint32_t));
    rows_store_init(&made->upper_index, memory, sizeof(uint32_t));
    rows_store_init(&made->upper_links, memory, config->M * sizeof(uint32_t));
    rows_store_init(&made->levels, memory, sizeof(uint8_t));
    atomic_init(&made->count, 0);
    atomic_init(&made->upper_count, 0);
    atomic_init(&made->entry, GRAPH_ENTRY_NONE);
    *graph = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL void graph_destroy(struct graph *graph)
{
    if (graph == NULL) {
        return;
    }
    rows_store_destroy(&graph->vectors);
    rows_store_destroy(&graph->links);
    rows_store_destroy(&graph->upper_index);
    rows_store_destroy(&graph->upper_links);
    rows_store_destroy(&graph->levels);
    for (uint32_t i = 0; i < GRAPH_STRIPES; i++) {
        platform_mutex_destroy(&graph->stripes[i]);
    }
    platform_mutex_destroy(&graph->entry_lock);
    memory_free(graph->memory, graph, sizeof *graph);
}

/* The finaliser of SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t graph_hash(uint64_t seed, uint32_t row)
{
    uint64_t hash = seed + (row + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15);

    hash = (hash ^ (hash >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ (hash >> 27)) * UINT64_C(0x94d049bb133111eb);
    return hash ^ (hash >> 31);
}

static uint32_t graph_level_of(const struct graph_config *config, uint32_t row)
{
    const uint64_t hash = graph_hash(config->seed, row);
    uint64_t threshold = UINT64_MAX / config->M;
    uint32_t level = 0;

    while (level < GRAPH_MAX_LEVEL && hash < threshold) {
        threshold /= config->M;
        level++;
    }
    return level;
}

static void graph_clear_slots(uint32_t *slots, uint32_t length, uint32_t row)
{
    for (uint32_t i = 0; i < length; i++) {
        slots[i] = row;
    }
}

/* Level, upper blocks and empty lists of rows [graph->reserved, rows), for which all stores have
 * room. */
static void graph_prepare_rows(struct graph *graph, uint32_t rows, const uint8_t *levels)
{
    const struct rows_view links = rows_store_view(&graph->links);
    const struct rows_view upper_index = rows_store_view(&graph->upper_index);
    const struct rows_view upper_links = rows_store_view(&graph->upper_links);
    const struct rows_view level_rows = rows_store_view(&graph->levels);
    uint32_t block = atomic_load_explicit(&graph->upper_count, memory_order_relaxed);

    for (uint32_t row = graph->reserved; row < rows; row++) {
        const uint32_t level =
            levels != NULL ? levels[row - graph->reserved] : graph_level_of(&graph->config, row);
        *rows_at(&level_rows, row) = (uint8_t)level;
        *(uint32_t *)(void *)rows_at(&upper_index, row) = block;
        graph_clear_slots((uint32_t *)(void *)rows_at(&links, row), graph->links_per_row, row);
        for (uint32_t i = 0; i < level; i++) {
            graph_clear_slots((uint32_t *)(void *)rows_at(&upper_links, block + i), graph->config.M,
                              row);
        }
        block += level;
    }
    atomic_store_explicit(&graph->upper_count, block, memory_order_release);
    graph->reserved = rows;
}

OMENDB_INTERNAL int graph_reserve_levels(struct graph *graph, uint32_t rows, const uint8_t *levels)
{
    uint32_t blocks = atomic_load_explicit(&graph->upper_count, memory_order_relaxed);

    assert(rows <= GRAPH_MAX_ROWS);
    if (rows <= graph->reserved) {
        return OMENDB_OK;
    }
    for (uint32_t row = graph->reserved; row < rows; row++) {
        blocks +=
            levels != NULL ? levels[row - graph->reserved] : graph_level_of(&graph->config, row);
    }
    if ((graph->keeps_vectors && rows_store_reserve(&graph->vectors, rows) != OMENDB_OK) ||
        rows_store_reserve(&graph->links, rows) != OMENDB_OK ||
        rows_store_reserve(&graph->upper_index, rows) != OMENDB_OK ||
        rows_store_reserve(&graph->upper_links, blocks) != OMENDB_OK ||
        rows_store_reserve(&graph->levels, rows) != OMENDB_OK) {
        return OMENDB_NOMEM;
    }
    graph_prepare_rows(graph, rows, levels);
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_reserve(struct graph *graph, uint32_t rows)
{
    return graph_reserve_levels(graph, rows, NULL);
}

OMENDB_INTERNAL uint8_t *graph_vector(struct graph *graph, uint32_t row)
{
    const struct rows_view vectors = rows_store_view(&graph->vectors);

    assert(graph->keeps_vectors);
    return rows_at(&vectors, row);
}

OMENDB_INTERNAL void graph_set_count(struct graph *graph, uint32_t count)
{
    atomic_store_explicit(&graph->count, count, memory_order_release);
}

OMENDB_INTERNAL int graph_offer_entry(struct graph *graph, uint32_t row, uint32_t level)
{
    uint64_t entry;
    int first;

    platform_mutex_lock(&graph->entry_lock);
    entry = atomic_load_explicit(&graph->entry, memory_order_relaxed);
    first = entry == GRAPH_ENTRY_NONE;
    if (first || level > (uint32_t)(entry >> 32)) {
        atomic_store_explicit(&graph->entry, (uint64_t)level << 32 | row, memory_order_release);
    }
    platform_mutex_unlock(&graph->entry_lock);
    return first;
}

OMENDB_INTERNAL void graph_get_view(const struct graph *graph, struct graph_view *view)
{
    const uint64_t entry = atomic_load_explicit(&graph->entry, memory_order_acquire);
    const uint32_t count = atomic_load_explicit(&graph->count, memory_order_acquire);

    memset(view, 0, sizeof *view);
    view->count = count;
    view->upper_count = atomic_load_explicit(&graph->upper_count, memory_order_acquire);
    view->vectors =
        graph->keeps_vectors ? rows_store_view_of(&graph->vectors, count) : graph->borrowed_vectors;
    view->links = rows_store_view_of(&graph->links, count);
    view->upper_index = rows_store_view_of(&graph->upper_index, count);
    view->upper_links = rows_store_view_of(&graph->upper_links, view->upper_count);
    view->levels = rows_store_view_of(&graph->levels, count);
    view->M = graph->config.M;
    view->links_per_row = graph->links_per_row;
    view->entry_row = entry == GRAPH_ENTRY_NONE ? GRAPH_NO_ROW : (uint32_t)entry;
    view->entry_level = entry == GRAPH_ENTRY_NONE ? 0 : (uint32_t)(entry >> 32);
    view->dim = graph->config.dim;
    view->kernel = graph->config.kernel;
    view->file = graph->vectors_file;
    view->vectors_offset = graph->keeps_vectors ? GRAPH_NOT_IN_FILE : graph->vectors_offset;
    view->links_offset = GRAPH_NOT_IN_FILE;
    view->upper_index_offset = GRAPH_NOT_IN_FILE;
    view->upper_links_offset = GRAPH_NOT_IN_FILE;
    view->levels_offset = GRAPH_NOT_IN_FILE;
}

/* Lists of a view, trusting nothing */

static int graph_view_upper_slots(const struct graph_view *view, uint32_t row, uint32_t level,
                                  uint32_t **slots, uint32_t *length)
{
    uint32_t block;
    int code = graph_view_touch(view, view->levels_offset, row, sizeof(uint8_t));

    if (code == OMENDB_OK) {
        code = graph_view_touch(view, view->upper_index_offset, row, sizeof(uint32_t));
    }
    if (code != OMENDB_OK || *rows_at(&view->levels, row) < level) {
        return code;
    }
    memcpy(&block, rows_at(&view->upper_index, row), sizeof block);
    if (block >= view->upper_count || level > view->upper_count - block) {
        return OMENDB_OK;
    }
    block += level - 1;
    code = graph_view_touch(view, view->upper_links_offset, block, view->M * sizeof(uint32_t));
    if (code == OMENDB_OK) {
        *slots = (uint32_t *)(void *)rows_at(&view->upper_links, block);
        *length = view->M;
    }
    return code;
}

OMENDB_INTERNAL int graph_view_slots(const struct graph_view *view, uint32_t row, uint32_t level,
                                     uint32_t **slots, uint32_t *length)
{
    int code;

    *slots = NULL;
    *length = 0;
    if (level > 0) {
        return graph_view_upper_slots(view, row, level, slots, length);
    }
    code = graph_view_touch(view, view->links_offset, row, view->links_per_row * sizeof(uint32_t));
    if (code == OMENDB_OK) {
        *slots = (uint32_t *)(void *)rows_at(&view->links, row);
        *length = view->links_per_row;
    }
    return code;
}

OMENDB_INTERNAL int graph_view_reach(const struct graph_view *view, uint32_t start,
                                     uint64_t *reached, uint32_t *queue, uint32_t *found)
{
    uint32_t head = 0, tail = 0;

    if ((reached[start >> 6] >> (start & 63) & 1) == 0) {
        reached[start >> 6] |= UINT64_C(1) << (start & 63);
        queue[tail++] = start;
    }
    for (; head < tail; head++) {
        uint32_t *slots, length;
        const int code = graph_view_slots(view, queue[head], 0, &slots, &length);
        if (code != OMENDB_OK) {
            return code;
        }
        for (uint32_t i = 0; i < length; i++) {
            const uint32_t next = graph_slot_load(&slots[i]);
            if (next < view->count && (reached[next >> 6] >> (next & 63) & 1) == 0) {
                reached[next >> 6] |= UINT64_C(1) << (next & 63);
                queue[tail++] = next;
            }
        }
    }
    *found += tail;
    return OMENDB_OK;
}

/* The check */

struct graph_check_state {
    const struct graph_view *view;
    void (*report)(void *context, const char *sentence);
    void *context;
    uint64_t bad_levels, bad_blocks, bad_links, low_links;
    uint32_t highest_level;
};

static int graph_check_list(struct graph_check_state *state, uint32_t row, uint32_t level)
{
    const struct graph_view *view = state->view;
    uint32_t *slots, length;
    int code = graph_view_slots(view, row, level, &slots, &length);

    for (uint32_t i = 0; i < length; i++) {
        const uint32_t to = graph_slot_load(&slots[i]);
        if (to >= view->count) {
            state->bad_links++;
            continue;
        }
        if (level > 0) {
            code = graph_view_touch(view, view->levels_offset, to, sizeof(uint8_t));
            if (code != OMENDB_OK) {
                return code;
            }
            state->low_links += *rows_at(&view->levels, to) < level;
        }
    }
    return code;
}

static int graph_check_row(struct graph_check_state *state, uint32_t row)
{
    const struct graph_view *view = state->view;
    uint32_t level, block;
    int code = graph_view_touch(view, view->levels_offset, row, sizeof(uint8_t));

    if (code == OMENDB_OK) {
        code = graph_check_list(state, row, 0);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    level = *rows_at(&view->levels, row);
    if (level > GRAPH_MAX_LEVEL) {
        state->bad_levels++;
        return OMENDB_OK;
    }
    state->highest_level = level > state->highest_level ? level : state->highest_level;
    if (level == 0) {
        return OMENDB_OK;
    }
    code = graph_view_touch(view, view->upper_index_offset, row, sizeof(uint32_t));
    if (code != OMENDB_OK) {
        return code;
    }
    memcpy(&block, rows_at(&view->upper_index, row), sizeof block);
    if (block >= view->upper_count || level > view->upper_count - block) {
        state->bad_blocks++;
        return OMENDB_OK;
    }
    for (uint32_t upper = 1; upper <= level && code == OMENDB_OK; upper++) {
        code = graph_check_list(state, row, upper);
    }
    return code;
}

static int graph_check_say(const struct graph_check_state *state, uint64_t number, const char *what)
{
    if (number == 0) {
        return 0;
    }
    (void)error_set(OMENDB_CORRUPT, "graph: %llu %s", (unsigned long long)number, what);
    state->report(state->context, error_text());
    return 1;
}

#define GRAPH_CHECK_STRAYS 8

static int graph_check_reach(struct graph_check_state *state, uint32_t indexed,
                             struct memory *memory)
{
    const struct graph_view *view = state->view;
    const size_t words = (size_t)view->count / 64 + 1;
    uint64_t *reached = memory_zalloc(memory, memory_multiply(words, sizeof *reached));
    uint32_t *queue = memory_array(memory, view->count, sizeof *queue);
    uint32_t found = 0, missing = 0;
    int code = OMENDB_NOMEM;

    if (reached != NULL && queue != NULL) {
        code = graph_view_reach(view, view->entry_row, reached, queue, &found);
    }
    if (code == OMENDB_OK) {
        for (uint32_t row = 0; row < indexed; row++) {
            missing += (reached[row >> 6] >> (row & 63) & 1) == 0;
        }
        /* Shortening full lists can cut off a row here and there while a graph grows; many are
         * damage. In a sealed one graph_repair has left none. */
        if (missing > (view->file != NULL ? 0 : GRAPH_CHECK_STRAYS + indexed / 50)) {
            (void)graph_check_say(state, missing, "rows cannot be reached from the entry");
        }
    }
    memory_free(memory, queue, (size_t)view->count * sizeof *queue);
    memory_free(memory, reached, words * sizeof *reached);
    return code;
}

OMENDB_INTERNAL int graph_check(const struct graph_view *view, uint32_t indexed,
                                struct memory *memory,
                                void (*report)(void *context, const char *sentence), void *context)
{
    struct graph_check_state state = {.view = view, .report = report, .context = context};
    int code = OMENDB_OK, defects = 0;

    if (indexed > view->count) {
        defects +=
            graph_check_say(&state, indexed - view->count, "indexed rows more than there are");
        indexed = view->count;
    }
    if (indexed == 0) {
        return defects ? OMENDB_CORRUPT : OMENDB_OK;
    }
    if (view->entry_row >= view->count || view->entry_level > GRAPH_MAX_LEVEL) {
        (void)graph_check_say(&state, 1, "entry row out of bounds");
        return OMENDB_CORRUPT;
    }
    for (uint32_t row = 0; row < indexed && code == OMENDB_OK; row++) {
        code = graph_check_row(&state, row);
    }
    if (code == OMENDB_OK) {
        code = graph_check_reach(&state, indexed, memory);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    defects += graph_check_say(&state, state.bad_levels, "rows with a level above the limit");
    defects += graph_check_say(&state, state.bad_blocks, "rows with upper blocks out of bounds");
    defects += graph_check_say(&state, state.bad_links, "links to rows that do not exist");
    defects += graph_check_say(&state, state.low_links, "upper links to rows of a lower level");
    defects +=
        graph_check_say(&state, *rows_at(&view->levels, view->entry_row) != view->entry_level,
                        "entry row with another level than stated");
    defects += graph_check_say(&state, state.highest_level > view->entry_level,
                               "entry below the highest level");
    return defects ? OMENDB_CORRUPT : OMENDB_OK;
}

#undef STORE_GRANULE
#undef STORE_MAX_STEP
#undef STORE_FULL_STEP

#undef GRAPH_CHECK_STRAYS

/* ==============================================================================================
 * graph_walk.c
 * ============================================================================================== */

/* graph_walk.c: the walk to the nearest rows (algorithms 2 and 5 of the HNSW paper), for searching
 * and building.
 *
 * What makes it fast:
 * - One sorted array of the best `ef` keys is both the result and the queue of rows to expand; a
 * position is found by comparing quarters without branches. Two binary heaps, as in the paper, cost
 * more up to some thousand entries; from WALK_WIDE on ("wide") they are used, because a move then
 * costs more than a heap's logarithm.
 * - The walk is a pipeline over rows, not over lists. Unvisited neighbours join a queue; when fewer
 * than WALK_AHEAD wait in it, the next row is expanded, whose list was fetched when the one before
 * was. At each step the vectors of four rows are fetched, and the distances of the four at the
 * head, whose vectors were fetched WALK_FETCH rows ago, computed. So memory always has work, and no
 * step waits for the end of a list. The rows to expand are thus chosen before the newest distances
 * are in, which expands a few rows more (1 % more distances, and a little more recall).
 * - Visited rows are one bit each, which for a million rows stays in the second-level cache; the
 * rows marked are remembered, in the same array that is the queue, and cleared afterwards.
 *
 * Measured on Zen 3, one million vectors of 128 bytes, recall 0.95: 1.4 times the queries a second
 * of hops computed one after the other with the next one's vectors fetched before; half of the time
 * is what reading the same vectors and lists at random takes. Rejected, all measured there: bytes
 * for marks (2 % slower), a small exact set of visited rows that fits the
 * first-level cache (5 % slower), fetching within the kernel between its steps (even), groups of
 * eight (3 % slower), fetching to outer caches only (even), lists of the next two candidates
 * fetched on suspicion (6 % slower than choosing one row earlier).
 *
 * Rows that a filter hides are walked through by a heap of their own beside the pool, bounded by
 * the worst returnable row, or by what the stretch allows beyond the k-th best one, so that the
 * walk with a filter is the same walk and costs what the hidden rows cost.
 *
 * Every loop ends on any input: a row is gathered at most once a walk, and the greedy descent goes
 * to smaller keys. */

#define WALK_WIDE  2048 /* entries of the pool */
#define WALK_AHEAD 16   /* rows in the queue, below which a row is expanded */
#define WALK_GROUP 4    /* distances a call of the kernel */
#define WALK_FETCH 16   /* rows fetched before they are computed, and at most so many bytes, if */
#define WALK_BYTES 4096 /* those are a group at least */
#define WALK_RING  128  /* addresses of fetched vectors; moved to the start when full */

/* Scratch */

OMENDB_INTERNAL struct graph_scratch *graph_scratch_create(struct memory *memory)
{
    struct graph_scratch *scratch = memory_zalloc(memory, sizeof *scratch);

    if (scratch != NULL) {
        scratch->memory = memory;
    }
    return scratch;
}

OMENDB_INTERNAL void graph_scratch_destroy(struct graph_scratch *scratch)
{
    struct memory *memory;

    if (scratch == NULL) {
        return;
    }
    memory = scratch->memory;
    memory_free_aligned(memory, scratch->marks, scratch->mark_words * sizeof *scratch->marks);
    memory_free(memory, scratch->touched, scratch->touched_capacity * sizeof *scratch->touched);
    memory_free(memory, scratch->pool.keys, scratch->pool.capacity * sizeof *scratch->pool.keys);
    memory_free(memory, scratch->pending.keys,
                scratch->pending.capacity * sizeof *scratch->pending.keys);
    memory_free(memory, scratch->nearest.keys,
                scratch->nearest.capacity * sizeof *scratch->nearest.keys);
    memory_free(memory, scratch->hop_block, scratch->hop_bytes);
    memory_free(memory, scratch, sizeof *scratch);
}

OMENDB_INTERNAL int graph_keys_reserve(struct memory *memory, struct graph_keys *keys,
                                       size_t capacity)
{
    size_t wanted = keys->capacity + keys->capacity / 2;
    uint64_t *fresh;

    if (capacity <= keys->capacity) {
        return OMENDB_OK;
    }
    wanted = wanted < capacity ? capacity : wanted;
    wanted = wanted < 64 ? 64 : wanted;
    fresh = memory_resize(memory, keys->keys, keys->capacity * sizeof *fresh,
                          memory_multiply(wanted, sizeof *fresh));
    if (fresh == NULL) {
        return OMENDB_NOMEM;
    }
    keys->keys = fresh;
    keys->capacity = wanted;
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_scratch_reserve_hop(struct graph_scratch *scratch, uint32_t links)
{
    const size_t room = (size_t)links + 1;
    const size_t bytes = room * (3 * sizeof(void *) + 4 * sizeof(uint32_t) + sizeof(float));
    unsigned char *block;

    if (links <= scratch->hop_capacity) {
        return OMENDB_OK;
    }
    block = memory_alloc(scratch->memory, bytes);
    if (block == NULL) {
        return OMENDB_NOMEM;
    }
    memory_free(scratch->memory, scratch->hop_block, scratch->hop_bytes);
    scratch->hop_block = block;
    scratch->hop_bytes = bytes;
    scratch->hop_capacity = links;
    scratch->hops[0].vectors = (const void **)(void *)block;
    scratch->hops[1].vectors = scratch->hops[0].vectors + room;
    scratch->selected_vectors = scratch->hops[1].vectors + room;
    scratch->hops[0].rows = (uint32_t *)(void *)(scratch->selected_vectors + room);
    scratch->hops[1].rows = scratch->hops[0].rows + room;
    scratch->selected = scratch->hops[1].rows + room;
    scratch->covers = scratch->selected + room;
    scratch->distances = (float *)(void *)(scratch->covers + room);
    return OMENDB_OK;
}

/* An eighth of the rows is remembered; a walk that marks more clears everything. */
OMENDB_INTERNAL int graph_scratch_reserve_marks(struct graph_scratch *scratch, uint32_t rows)
{
    const size_t needed = (size_t)rows / 64 + 1;
    size_t words = scratch->mark_words + scratch->mark_words / 2;
    size_t capacity;
    uint64_t *marks;
    uint32_t *touched;

    if (needed <= scratch->mark_words) {
        return OMENDB_OK;
    }
    words = words < needed ? needed : words;
    capacity = words * 8 + GRAPH_TOUCHED_LEAST;
    marks = memory_alloc_aligned(scratch->memory, memory_multiply(words, sizeof *marks));
    touched = memory_array(scratch->memory, capacity, sizeof *touched);
    if (marks == NULL || touched == NULL) {
        memory_free_aligned(scratch->memory, marks, words * sizeof *marks);
        memory_free(scratch->memory, touched, capacity * sizeof *touched);
        return OMENDB_NOMEM;
    }
    memory_free_aligned(scratch->memory, scratch->marks, scratch->mark_words * sizeof *marks);
    memory_free(scratch->memory, scratch->touched, scratch->touched_capacity * sizeof *touched);
    scratch->marks = marks;
    scratch->mark_words = words;
    scratch->touched = touched;
    scratch->touched_capacity = capacity;
    scratch->touched_count = 0;
    scratch->touched_lost = 0;
    return OMENDB_OK;
}

OMENDB_INTERNAL void graph_scratch_clear_marks(struct graph_scratch *scratch)
{
    const uint32_t *touched = scratch->touched;
    const size_t count = scratch->touched_count;
    uint64_t *marks = scratch->marks;

    if (scratch->touched_lost) {
        memset(marks, 0, scratch->mark_words * sizeof *marks);
    } else {
        for (size_t i = 0; i < count; i++) {
            marks[touched[i] >> 6] = 0;
        }
    }
    scratch->touched_count = 0;
    scratch->touched_lost = 0;
}

/* Keys: a sorted array, and a heap. `flip` is 0 for the smallest on top, ~0 for the greatest. */

/* How many of the sorted keys are smaller. By quarters: three loads at a time wait for no other,
 * and no branch depends on the keys. */
static inline size_t walk_position(const uint64_t *keys, size_t count, uint64_t key)
{
    const uint64_t *base = keys;
    size_t smaller = 0;

    while (count > 3) {
        const size_t quarter = count / 4;
        base += quarter * ((size_t)(base[quarter - 1] < key) + (base[2 * quarter - 1] < key) +
                           (base[3 * quarter - 1] < key));
        count -= 3 * quarter;
    }
    for (size_t i = 0; i < count; i++) {
        smaller += base[i] < key;
    }
    return (size_t)(base - keys) + smaller;
}

static void walk_heap_up(uint64_t *keys, size_t at, uint64_t key, uint64_t flip)
{
    while (at > 0) {
        const size_t parent = (at - 1) / 2;
        if ((keys[parent] ^ flip) <= (key ^ flip)) {
            break;
        }
        keys[at] = keys[parent];
        at = parent;
    }
    keys[at] = key;
}

/* Puts the key where the top was. */
static void walk_heap_down(uint64_t *keys, size_t count, uint64_t key, uint64_t flip)
{
    size_t at = 0, child = 1;

    while (child < count) {
        child += child + 1 < count && (keys[child + 1] ^ flip) < (keys[child] ^ flip);
        if ((key ^ flip) <= (keys[child] ^ flip)) {
            break;
        }
        keys[at] = keys[child];
        at = child;
        child = 2 * at + 1;
    }
    keys[at] = key;
}

/* A heap with the greatest on top becomes ascending. */
static void walk_heap_sort(uint64_t *keys, size_t count)
{
    while (count > 1) {
        const uint64_t greatest = keys[0];
        count--;
        walk_heap_down(keys, count, keys[count], ~UINT64_C(0));
        keys[count] = greatest;
    }
}

/* Sorted ones that keep the `capacity` smallest: the key goes to its position, the worst out when
 * full. */
static void walk_put(uint64_t *keys, size_t *count, size_t capacity, size_t at, uint64_t key)
{
    *count -= *count == capacity;
    memmove(keys + at + 1, keys + at, (*count - at) * sizeof *keys);
    keys[at] = key;
    (*count)++;
}

/* The same with a heap that has the greatest on top. */
static void walk_put_wide(uint64_t *keys, size_t *count, size_t capacity, uint64_t key)
{
    if (*count == capacity) {
        walk_heap_down(keys, *count, key, ~UINT64_C(0));
    } else {
        walk_heap_up(keys, (*count)++, key, ~UINT64_C(0));
    }
}

/* The worst of a full one, which a key must be below; else anything is welcome. */
static uint64_t walk_bound(const uint64_t *keys, size_t count, size_t capacity, int wide)
{
    if (count < capacity) {
        return GRAPH_KEY_NONE;
    }
    return wide ? keys[0] : keys[count - 1];
}

/* Walks */

/* The queue is scratch->touched[head .. touched_count). */
struct walk {
    const struct graph_view *view;
    struct graph_scratch *scratch;
    const struct graph_filter *filter; /* NULL when it hides nothing */
    const void *query;
    uint64_t *pool; /* scratch->pool.keys, of which `size` of at most `ef` are used */
    size_t size;
    size_t ef;
    size_t next;    /* not wide: all before are expanded */
    uint64_t bound; /* nothing beyond it is kept or expanded; it never rises */
    float limit;    /* distance of the bound; NaN compares with it so that the bound decides */
    float stretch;
    float origin;
    size_t k;            /* 0: no stretch */
    const uint8_t *base; /* of vectors that are one chunk; else NULL */
    size_t stride;
    size_t prefetch_bytes;
    size_t fetch; /* rows fetched before they are computed */
    size_t tie_limit;
    size_t head;
    uint32_t level;
    uint32_t tie_mask;
    int wide;
    int verifies;
    struct graph_counters counters;
};

static int walk_returnable(const struct graph_filter *filter, uint32_t row)
{
    return row < filter->row_limit && row != filter->excluded_row &&
           (filter->visible == NULL || filter->visible(filter->context, row));
}

static const struct graph_filter *walk_needed_filter(const struct graph_filter *filter,
                                                     uint32_t count)
{
    if (filter == NULL ||
        (filter->row_limit >= count && filter->excluded_row >= count && filter->visible == NULL)) {
        return NULL;
    }
    return filter;
}

static int walk_push_pending(struct walk *walk, uint64_t key)
{
    struct graph_keys *pending = &walk->scratch->pending;

    if (graph_keys_reserve(walk->scratch->memory, pending, pending->count + 1) != OMENDB_OK) {
        return OMENDB_NOMEM;
    }
    walk_heap_up(pending->keys, pending->count++, key, 0);
    return OMENDB_OK;
}

static void walk_set_bound(struct walk *walk, uint64_t bound)
{
    if (bound < walk->bound) {
        walk->bound = bound;
        walk->limit = graph_key_distance(bound);
    }
}

/* After a change of the k-th best returnable key. No bound follows from a NaN. */
static void walk_tighten(struct walk *walk, uint64_t kth)
{
    const float distance = graph_key_distance(kth);
    const float farthest = distance + (walk->stretch - 1.0f) * fabsf(distance - walk->origin);

    if (farthest >= distance) {
        walk_set_bound(walk, graph_key(farthest, GRAPH_ROW_MASK) | GRAPH_KEY_EXPANDED);
    }
}

static int walk_offer_wide(struct walk *walk, uint64_t key)
{
    struct graph_keys *nearest = &walk->scratch->nearest;

    walk_put_wide(walk->pool, &walk->size, walk->ef, key);
    if (walk->size == walk->ef) {
        walk_set_bound(walk, walk->pool[0]);
    }
    if (walk->k != 0 && key < walk_bound(nearest->keys, nearest->count, walk->k, 1)) {
        walk_put_wide(nearest->keys, &nearest->count, walk->k, key);
        if (nearest->count == walk->k) {
            walk_tighten(walk, nearest->keys[0]);
        }
    }
    return walk_push_pending(walk, key);
}

/* A row whose distance is known; its key is below the bound. */
static int walk_offer(struct walk *walk, uint64_t key)
{
    size_t at;

    if (walk->filter != NULL &&
        !walk_returnable(walk->filter, graph_key_row(key, walk->tie_mask))) {
        return walk_push_pending(walk, key);
    }
    if (walk->wide) {
        return walk_offer_wide(walk, key);
    }
    at = walk_position(walk->pool, walk->size, key);
    if (at >= walk->tie_limit && walk->pool[at - walk->tie_limit] >> 32 == key >> 32) {
        return OMENDB_OK;
    }
    walk_put(walk->pool, &walk->size, walk->ef, at, key);
    walk->next = at < walk->next ? at : walk->next;
    if (walk->size == walk->ef) {
        walk_set_bound(walk, walk->pool[walk->size - 1]);
    }
    if (at < walk->k && walk->size >= walk->k) {
        walk_tighten(walk, walk->pool[walk->k - 1]);
    }
    return OMENDB_OK;
}

/* The nearest row that is worth expanding and was not; GRAPH_NO_ROW when there is none. */
static uint32_t walk_take(struct walk *walk)
{
    struct graph_keys *pending = &walk->scratch->pending;
    uint64_t key = GRAPH_KEY_NONE;

    if (!walk->wide) {
        while (walk->next < walk->size && (walk->pool[walk->next] & GRAPH_KEY_EXPANDED) != 0) {
            walk->next++;
        }
        key = walk->next < walk->size ? walk->pool[walk->next] : GRAPH_KEY_NONE;
    }
    if (pending->count != 0 && pending->keys[0] < key && pending->keys[0] <= walk->bound) {
        key = pending->keys[0];
        pending->count--;
        walk_heap_down(pending->keys, pending->count, pending->keys[pending->count], 0);
        return graph_key_row(key, walk->tie_mask);
    }
    if (key == GRAPH_KEY_NONE || key > walk->bound) {
        return GRAPH_NO_ROW;
    }
    walk->pool[walk->next++] |= GRAPH_KEY_EXPANDED;
    return graph_key_row(key, walk->tie_mask);
}

static inline const uint8_t *walk_vector(const struct walk *walk, uint32_t row)
{
    return walk->base != NULL ? walk->base + row * walk->stride
                              : rows_at(&walk->view->vectors, row);
}

/* The two lines of most codes without a loop. */
static inline void walk_prefetch_vector(const uint8_t *vector, size_t bytes)
{
    prefetch_line(vector);
    if (bytes > OMENDB_CACHE_LINE) {
        prefetch_line(vector + OMENDB_CACHE_LINE);
        for (size_t i = 2 * OMENDB_CACHE_LINE; i < bytes; i += OMENDB_CACHE_LINE) {
            prefetch_line(vector + i);
        }
    }
}

static void walk_prefetch_links(const struct walk *walk, uint32_t row)
{
    if (walk->level == 0) {
        prefetch_bytes(rows_at(&walk->view->links, row),
                       walk->view->links_per_row * sizeof(uint32_t));
    }
}

/* Stores in `rows`, which has `length` places, the neighbours that were not visited, and marks
 * them; returns how many. A number out of bounds, which only a damaged file or a list ahead of the
 * view's count has, is taken for the row itself: visited. */
static inline uint32_t walk_gather_rows(uint64_t *marks, uint32_t count, uint32_t row,
                                        const uint32_t *slots, uint32_t length, uint32_t *rows)
{
    uint32_t found = 0;

    for (uint32_t i = 0; i < length; i++) {
        uint32_t neighbour = graph_slot_load(&slots[i]);
        neighbour = neighbour < count ? neighbour : row;
        rows[found] = neighbour;
        found += graph_mark(marks, neighbour);
    }
    return found;
}

/* The rows of which the distance is known are forgotten to make room. */
static void walk_shift_queue(struct walk *walk)
{
    struct graph_scratch *scratch = walk->scratch;

    scratch->touched_count -= walk->head;
    memmove(scratch->touched, scratch->touched + walk->head,
            scratch->touched_count * sizeof *scratch->touched);
    scratch->touched_lost = 1;
    walk->head = 0;
}

/* The neighbours of a row join the queue. */
static int walk_expand(struct walk *walk, uint32_t row)
{
    const struct graph_view *view = walk->view;
    struct graph_scratch *scratch = walk->scratch;
    uint32_t *slots, length;
    size_t before;
    int code = OMENDB_OK;

    if (!walk->verifies && walk->level == 0) {
        slots = (uint32_t *)(void *)rows_at(&view->links, row);
        length = view->links_per_row;
    } else {
        code = graph_view_slots(view, row, walk->level, &slots, &length);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    if (scratch->touched_count + length > scratch->touched_capacity) {
        walk_shift_queue(walk);
    }
    before = scratch->touched_count;
    scratch->touched_count += walk_gather_rows(scratch->marks, view->count, row, slots, length,
                                               scratch->touched + before);
    walk->counters.expanded++;
    for (size_t i = before; walk->verifies && code == OMENDB_OK && i < scratch->touched_count;
         i++) {
        code = graph_view_touch_vector(view, scratch->touched[i]);
    }
    return code;
}

/* Expands rows until the queue is long enough or none is left. *waiting: the row to expand next,
 * chosen when the one before was expanded, so that its list is on its way since then. */
static inline int walk_fill_queue(struct walk *walk, uint32_t *waiting)
{
    const struct graph_scratch *scratch = walk->scratch;
    int code = OMENDB_OK;

    while (scratch->touched_count - walk->head < WALK_AHEAD && code == OMENDB_OK) {
        uint32_t row = *waiting;
        if (row == GRAPH_NO_ROW) {
            row = walk_take(walk);
            if (row == GRAPH_NO_ROW) {
                break;
            }
        }
        *waiting = walk_take(walk);
        if (*waiting != GRAPH_NO_ROW) {
            walk_prefetch_links(walk, *waiting);
        }
        code = walk_expand(walk, row);
    }
    return code;
}

/* Addresses of vectors on their way: of the rows at the head of the queue, in order. */
struct walk_ring {
    const void *vectors[WALK_RING];
    size_t first;
    size_t end;
};

/* Fetches the vectors of rows in the queue up to walk->fetch and a group from its head. */
static inline void walk_fetch(struct walk *walk, struct walk_ring *ring, size_t queued)
{
    const size_t wanted = queued < walk->fetch + WALK_GROUP ? queued : walk->fetch + WALK_GROUP;
    size_t ready = ring->end - ring->first;

    if (ring->first + wanted > WALK_RING) {
        memmove(ring->vectors, ring->vectors + ring->first, ready * sizeof *ring->vectors);
        ring->first = 0;
        ring->end = ready;
    }
    for (; ready < wanted; ready++) {
        const uint8_t *vector = walk_vector(walk, walk->scratch->touched[walk->head + ready]);
        walk_prefetch_vector(vector, walk->prefetch_bytes);
        ring->vectors[ring->end++] = vector;
    }
}

/* A NaN is offered: the order of the keys has a place for it. */
static inline int walk_offer_group(struct walk *walk, const uint32_t *rows, const float *distances,
                                   size_t count)
{
    int code = OMENDB_OK;

    for (size_t i = 0; i < count && code == OMENDB_OK; i++) {
        if (!(distances[i] > walk->limit)) {
            const uint64_t key = graph_key(distances[i], rows[i] ^ walk->tie_mask);
            if (key < walk->bound) {
                code = walk_offer(walk, key);
            }
        }
    }
    return code;
}

static int walk_run(struct walk *walk)
{
    struct graph_scratch *scratch = walk->scratch;
    struct walk_ring ring;
    uint32_t waiting = GRAPH_NO_ROW;
    int code = OMENDB_OK;

    ring.first = ring.end = 0;
    while (code == OMENDB_OK) {
        float distances[WALK_GROUP];
        size_t queued, count;
        code = walk_fill_queue(walk, &waiting);
        queued = scratch->touched_count - walk->head;
        if (code != OMENDB_OK || queued == 0) {
            break;
        }
        walk_fetch(walk, &ring, queued);
        count = queued < WALK_GROUP ? queued : WALK_GROUP;
        walk->view->kernel->many(walk->query, ring.vectors + ring.first, count, walk->view->dim,
                                 distances);
        walk->counters.distances += count;
        code = walk_offer_group(walk, scratch->touched + walk->head, distances, count);
        walk->head += count;
        ring.first += count;
    }
    return code;
}

static size_t walk_fetch_of(size_t bytes)
{
    const size_t rows = WALK_BYTES / (bytes + 1) / WALK_GROUP * WALK_GROUP;

    return rows < WALK_GROUP ? WALK_GROUP : rows > WALK_FETCH ? WALK_FETCH : rows;
}

static int walk_prepare(struct walk *walk, const struct graph_walk_terms *terms)
{
    const struct graph_view *view = terms->view;
    struct graph_scratch *scratch = terms->scratch;
    size_t ef = terms->ef < view->count ? terms->ef : view->count;

    memset(walk, 0, sizeof *walk);
    walk->view = view;
    walk->scratch = scratch;
    walk->filter = walk_needed_filter(terms->filter, view->count);
    walk->query = terms->query;
    walk->ef = ef;
    walk->wide = ef > WALK_WIDE;
    walk->bound = GRAPH_KEY_NONE;
    walk->limit = INFINITY;
    walk->stride = view->vectors.stride;
    walk->base = view->vectors.shift >= 31 ? view->vectors.chunks[0] : NULL;
    walk->tie_limit = terms->tie_limit != 0 ? terms->tie_limit : SIZE_MAX;
    walk->level = terms->level;
    walk->tie_mask = terms->tie_mask;
    walk->verifies = graph_view_verifies(view);
    walk->prefetch_bytes =
        view->vectors.stride < PREFETCH_MAX_BYTES ? view->vectors.stride : PREFETCH_MAX_BYTES;
    walk->fetch = walk_fetch_of(walk->prefetch_bytes);
    if (terms->stretch > 0.0f) {
        walk->k = terms->k < 1 ? 1 : terms->k < ef ? terms->k : ef;
        walk->stretch = terms->stretch;
        walk->origin = terms->origin;
    }
    scratch->pending.count = 0;
    scratch->nearest.count = 0;
    scratch->pool.count = 0;
    if (graph_scratch_reserve_marks(scratch, view->count) != OMENDB_OK ||
        graph_scratch_reserve_hop(scratch, view->links_per_row) != OMENDB_OK ||
        graph_keys_reserve(scratch->memory, &scratch->pool, ef + 1) != OMENDB_OK ||
        (walk->wide &&
         graph_keys_reserve(scratch->memory, &scratch->nearest, walk->k) != OMENDB_OK)) {
        return OMENDB_NOMEM;
    }
    walk->pool = scratch->pool.keys;
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_walk(const struct graph_walk_terms *terms, uint64_t start)
{
    struct walk walk;
    int code = walk_prepare(&walk, terms);

    if (code != OMENDB_OK || walk.ef == 0 || start == GRAPH_KEY_NONE) {
        return code;
    }
    (void)graph_scratch_mark(walk.scratch, graph_key_row(start, walk.tie_mask));
    walk.head = walk.scratch->touched_count;
    code = walk_offer(&walk, start);
    if (code == OMENDB_OK) {
        code = walk_run(&walk);
    }
    graph_scratch_clear_marks(walk.scratch);
    if (walk.wide) {
        walk_heap_sort(walk.pool, walk.size);
    }
    for (size_t i = 0; i < walk.size; i++) {
        walk.pool[i] &= ~GRAPH_KEY_EXPANDED;
    }
    walk.scratch->pool.count = walk.size;
    if (terms->counters != NULL) {
        terms->counters->expanded += walk.counters.expanded;
        terms->counters->distances += walk.counters.distances;
    }
    return code;
}

/* graph_view_slots of a level above the base without the look at the row's own level, which only a
 * damaged file makes necessary: then it is some other row's list. */
static int walk_upper_slots(const struct walk *walk, uint32_t row, uint32_t **slots,
                            uint32_t *length)
{
    const struct graph_view *view = walk->view;
    uint64_t block;
    uint32_t first;

    if (walk->verifies) {
        return graph_view_slots(view, row, walk->level, slots, length);
    }
    memcpy(&first, rows_at(&view->upper_index, row), sizeof first);
    block = (uint64_t)first + walk->level - 1;
    *length = 0;
    if (block < view->upper_count) {
        *slots = (uint32_t *)(void *)rows_at(&view->upper_links, (uint32_t)block);
        *length = view->M;
    }
    return OMENDB_OK;
}

/* The neighbour at the level nearest to the query, if it is nearer than *reached; *moved says so.
 */
static int walk_step_down(struct walk *walk, uint64_t *reached, int *moved)
{
    const struct graph_view *view = walk->view;
    uint32_t *rows = walk->scratch->hops[0].rows;
    const void **vectors = walk->scratch->hops[0].vectors;
    float *distances = walk->scratch->distances;
    const uint32_t row = graph_key_row(*reached, walk->tie_mask);
    uint32_t *slots, length, count = 0;
    int code = walk_upper_slots(walk, row, &slots, &length);

    prefetch_bytes(rows_at(&view->links, row), view->links_per_row * sizeof(uint32_t));
    for (uint32_t i = 0; i < length && code == OMENDB_OK; i++) {
        const uint32_t neighbour = graph_slot_load(&slots[i]);
        if (neighbour < view->count && neighbour != row) {
            if (walk->verifies) {
                code = graph_view_touch_vector(view, neighbour);
            }
            const uint8_t *vector = walk_vector(walk, neighbour);
            walk_prefetch_vector(vector, walk->prefetch_bytes);
            prefetch_line(rows_at(&view->upper_index, neighbour));
            vectors[count] = vector;
            rows[count++] = neighbour;
        }
    }
    *moved = 0;
    if (code != OMENDB_OK) {
        return code;
    }
    view->kernel->many(walk->query, vectors, count, view->dim, distances);
    walk->counters.distances += count;
    walk->counters.expanded++;
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t key = graph_key(distances[i], rows[i] ^ walk->tie_mask);
        if (key < *reached) {
            *reached = key;
            *moved = 1;
        }
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_walk_descend(const struct graph_walk_terms *terms, uint64_t *reached)
{
    const struct graph_view *view = terms->view;
    const uint32_t entry = view->entry_row;
    uint32_t level = view->entry_level < GRAPH_MAX_LEVEL ? view->entry_level : GRAPH_MAX_LEVEL;
    struct walk walk;
    int code;

    *reached = GRAPH_KEY_NONE;
    if (entry >= view->count) {
        return OMENDB_OK;
    }
    code = walk_prepare(&walk, terms);
    if (code == OMENDB_OK && walk.verifies) {
        code = graph_view_touch_vector(view, entry);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    *reached =
        graph_key(view->kernel->pair(terms->query, rows_at(&view->vectors, entry), view->dim),
                  entry ^ terms->tie_mask);
    walk.counters.distances++;
    for (; level > terms->level && code == OMENDB_OK; level--) {
        int moved = 1;
        walk.level = level;
        while (moved && code == OMENDB_OK) {
            code = walk_step_down(&walk, reached, &moved);
        }
    }
    if (terms->counters != NULL) {
        terms->counters->expanded += walk.counters.expanded;
        terms->counters->distances += walk.counters.distances;
    }
    return code;
}

OMENDB_INTERNAL int graph_search(const struct graph_view *view, struct graph_scratch *scratch,
                                 const void *query, const struct graph_effort *effort,
                                 const struct graph_filter *filter, struct graph_hit *hits,
                                 size_t *count, struct graph_counters *counters)
{
    const struct graph_walk_terms terms = {.view = view,
                                           .scratch = scratch,
                                           .query = query,
                                           .ef = effort->ef,
                                           .filter = filter,
                                           .counters = counters,
                                           .k = effort->k,
                                           .stretch = effort->stretch,
                                           .origin = effort->origin};
    uint64_t start;
    int code = graph_walk_descend(&terms, &start);

    *count = 0;
    scratch->pool.count = 0;
    if (code == OMENDB_OK) {
        code = graph_walk(&terms, start);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    for (size_t i = 0; i < scratch->pool.count; i++) {
        hits[i].distance = graph_key_distance(scratch->pool.keys[i]);
        hits[i].row = graph_key_row(scratch->pool.keys[i], 0);
    }
    *count = scratch->pool.count;
    return OMENDB_OK;
}

/* Scans */

#define SCAN_BATCH 32

struct scan {
    uint64_t *keys;
    size_t count;
    size_t capacity;
    int wide;
    uint64_t distances;
    uint32_t batch_count;
    uint32_t rows[SCAN_BATCH];
    const void *vectors[SCAN_BATCH];
};

static void scan_keep(struct scan *scan, uint64_t key)
{
    if (key >= walk_bound(scan->keys, scan->count, scan->capacity, scan->wide)) {
        return;
    }
    if (scan->wide) {
        walk_put_wide(scan->keys, &scan->count, scan->capacity, key);
    } else {
        walk_put(scan->keys, &scan->count, scan->capacity,
                 walk_position(scan->keys, scan->count, key), key);
    }
}

static void scan_finish_batch(struct scan *scan, const struct graph_view *view, const void *query)
{
    float distances[SCAN_BATCH];

    view->kernel->many(query, scan->vectors, scan->batch_count, view->dim, distances);
    for (uint32_t i = 0; i < scan->batch_count; i++) {
        scan_keep(scan, graph_key(distances[i], scan->rows[i]));
    }
    scan->distances += scan->batch_count;
    scan->batch_count = 0;
}

static int scan_rows(struct scan *scan, const struct graph_view *view, const void *query,
                     uint32_t first, uint32_t last, const struct graph_filter *filter)
{
    const int verifies = graph_view_verifies(view);

    for (uint32_t row = first; row < last; row++) {
        if (filter != NULL && !walk_returnable(filter, row)) {
            continue;
        }
        if (verifies) {
            const int code = graph_view_touch_vector(view, row);
            if (code != OMENDB_OK) {
                return code;
            }
        }
        scan->rows[scan->batch_count] = row;
        scan->vectors[scan->batch_count++] = rows_at(&view->vectors, row);
        if (scan->batch_count == SCAN_BATCH) {
            scan_finish_batch(scan, view, query);
        }
    }
    scan_finish_batch(scan, view, query);
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_scan(const struct graph_view *view, struct graph_scratch *scratch,
                               const void *query, uint32_t first, uint32_t last, size_t k,
                               const struct graph_filter *filter, struct graph_hit *hits,
                               size_t *count, struct graph_counters *counters)
{
    struct scan scan = {.capacity = k, .wide = k > WALK_WIDE};
    int code;

    last = last < view->count ? last : view->count;
    if (k == 0 || first >= last) {
        return OMENDB_OK;
    }
    if (scan.capacity > *count + (last - first)) {
        scan.capacity = *count + (last - first);
    }
    if (graph_keys_reserve(scratch->memory, &scratch->pool, scan.capacity + 1) != OMENDB_OK) {
        return OMENDB_NOMEM;
    }
    scan.keys = scratch->pool.keys;
    for (size_t i = 0; i < *count; i++) {
        scan_keep(&scan, graph_key(hits[i].distance, hits[i].row));
    }
    code = scan_rows(&scan, view, query, first, last, walk_needed_filter(filter, view->count));
    if (code != OMENDB_OK) {
        return code;
    }
    if (scan.wide) {
        walk_heap_sort(scan.keys, scan.count);
    }
    for (size_t i = 0; i < scan.count; i++) {
        hits[i].distance = graph_key_distance(scan.keys[i]);
        hits[i].row = graph_key_row(scan.keys[i], 0);
    }
    *count = scan.count;
    if (counters != NULL) {
        counters->distances += scan.distances;
    }
    return OMENDB_OK;
}

#undef WALK_WIDE
#undef WALK_AHEAD
#undef WALK_GROUP
#undef WALK_FETCH
#undef WALK_BYTES
#undef WALK_RING
#undef SCAN_BATCH

/* ==============================================================================================
 * graph_build.c
 * ============================================================================================== */

/* graph_build.c: linking rows into the graph (algorithms 1 and 4 of the HNSW paper), and taking
 * over a finished one.
 *
 * Insertion finds the neighbours of a row at all its levels, writes its own lists, and only then
 * the links back to it, from the base upward: whoever meets the row, at whatever level, finds its
 * lists below complete. As in hnswlib a row takes M neighbours at every level and lists hold 2M at
 * the base; a full list is chosen anew by the heuristic.
 *
 * The heuristic goes through the candidates from near to far and keeps one unless a kept one is
 * nearer to it than the owner is. Distances to the kept ones are computed four at a time, most
 * rejections come within the first four. Equal distances are decided by the XOR of row numbers
 * (graph_internal.h), in the walk and in the heuristic.
 *
 * A taken-over graph (adopt) keeps levels and lists; only lists that lost a row are chosen anew,
 * from what is left of them and what the dropped rows knew. Rows that no path leads to any more are
 * then linked once again: the nearest row that is reachable gives up a slot to the lost one, which
 * takes over the link that stood there, so that nothing else is lost by it.
 *
 * Rejected: one lock for the whole insertion of a row that tops the graph (hnswlib): two such rows
 * at once merely do not see each other at a level that is new to both. Rejected: refilling a list
 * with the pruned candidates ("keepPruned"), longer hops for no recall. */

#define BUILD_GROUP          4
#define BUILD_ADOPT_ROOM     512 /* candidates for one list */
#define BUILD_ADOPT_EXPANDED 256 /* dropped rows looked through for one list */

struct build {
    struct graph *graph;
    struct graph_view view;
    struct graph_scratch *scratch;
    uint32_t row;
    const void *vector;
};

/* The first chosen row that is nearer to the candidate than the owner of the list is, or
 * GRAPH_NO_ROW. */
static uint32_t build_cover_of(const struct graph_view *view, const struct graph_scratch *scratch,
                               uint32_t chosen, uint64_t candidate_key, uint32_t candidate,
                               const void *vector)
{
    float distances[BUILD_GROUP];

    for (uint32_t i = 0; i < chosen; i += BUILD_GROUP) {
        const uint32_t group = chosen - i < BUILD_GROUP ? chosen - i : BUILD_GROUP;
        view->kernel->many(vector, scratch->selected_vectors + i, group, view->dim, distances);
        for (uint32_t j = 0; j < group; j++) {
            const uint32_t cover = scratch->selected[i + j];
            if (graph_key(distances[j], cover ^ candidate) < candidate_key) {
                return cover;
            }
        }
    }
    return GRAPH_NO_ROW;
}

/* Picks at most `limit` of the ascending keys of row `owner` into scratch->selected, after `chosen`
 * that are there already, and returns how many there are then. Every candidate's vector was
 * verified before. rejected: NULL, or hops[1], which has room for all candidates and gets the
 * rejected ones, with scratch->covers. */
static uint32_t build_select(const struct graph_view *view, struct graph_scratch *scratch,
                             uint32_t owner, uint32_t chosen, uint32_t limit,
                             struct graph_hop *rejected)
{
    const uint64_t *keys = scratch->pool.keys;
    const size_t count = scratch->pool.count;
    const size_t bytes =
        view->vectors.stride < PREFETCH_MAX_BYTES ? view->vectors.stride : PREFETCH_MAX_BYTES;

    for (size_t i = 0; i < count && chosen < limit; i++) {
        const uint32_t candidate = graph_key_row(keys[i], owner);
        const void *vector = rows_at(&view->vectors, candidate);
        uint32_t cover;
        if (i + 2 < count) {
            prefetch_bytes(rows_at(&view->vectors, graph_key_row(keys[i + 2], owner)), bytes);
        }
        if (candidate == owner) {
            continue;
        }
        cover = build_cover_of(view, scratch, chosen, keys[i], candidate, vector);
        if (cover == GRAPH_NO_ROW) {
            scratch->selected[chosen] = candidate;
            scratch->selected_vectors[chosen++] = vector;
        } else if (rejected != NULL) {
            scratch->covers[rejected->count] = cover;
            rejected->rows[rejected->count++] = candidate;
        }
    }
    return chosen;
}

static void build_sort_keys(uint64_t *keys, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        const uint64_t key = keys[i];
        size_t at = i;
        for (; at > 0 && keys[at - 1] > key; at--) {
            keys[at] = keys[at - 1];
        }
        keys[at] = key;
    }
}

/* Ascending keys, relative to `owner`, of the rows in scratch->hops[0] into scratch->pool. */
static int build_keys_of_hop(const struct graph_view *view, struct graph_scratch *scratch,
                             uint32_t owner)
{
    struct graph_hop *hop = &scratch->hops[0];
    const void *query = rows_at(&view->vectors, owner);
    int code = graph_keys_reserve(scratch->memory, &scratch->pool, hop->count);

    for (uint32_t i = 0; i < hop->count && code == OMENDB_OK; i++) {
        code = graph_view_touch_vector(view, hop->rows[i]);
        hop->vectors[i] = rows_at(&view->vectors, hop->rows[i]);
        prefetch_bytes(hop->vectors[i], view->vectors.stride < 512 ? view->vectors.stride : 512);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    view->kernel->many(query, hop->vectors, hop->count, view->dim, scratch->distances);
    for (uint32_t i = 0; i < hop->count; i++) {
        scratch->pool.keys[i] = graph_key(scratch->distances[i], hop->rows[i] ^ owner);
    }
    scratch->pool.count = hop->count;
    build_sort_keys(scratch->pool.keys, hop->count);
    return OMENDB_OK;
}

static void build_store_selected(const struct graph_scratch *scratch, uint32_t chosen,
                                 uint32_t *slots, uint32_t length, uint32_t owner)
{
    for (uint32_t i = 0; i < length; i++) {
        graph_slot_store(&slots[i], i < chosen ? scratch->selected[i] : owner);
    }
}

/* Under the stripe of `owner`, whose list is full: the list and `added` compete for it. *taken:
 * whether `added` won a place. */
static int build_choose_again(struct build *build, uint32_t owner, uint32_t *slots, uint32_t length,
                              uint32_t added, int *taken)
{
    struct graph_scratch *scratch = build->scratch;
    struct graph_hop *hop = &scratch->hops[0];
    uint32_t chosen, highest = added;
    int code;

    hop->count = 0;
    for (uint32_t i = 0; i < length; i++) {
        const uint32_t row = graph_slot_load(&slots[i]);
        hop->rows[hop->count++] = row;
        highest = row > highest ? row : highest;
    }
    hop->rows[hop->count++] = added;
    if (highest >= build->view.count) {
        graph_get_view(build->graph, &build->view); /* rows came after the view was taken */
    }
    code = build_keys_of_hop(&build->view, scratch, owner);
    if (code != OMENDB_OK) {
        return code;
    }
    chosen = build_select(&build->view, scratch, owner, 0, length, &scratch->hops[1]);
    build_store_selected(scratch, chosen, slots, length, owner);
    for (uint32_t i = 0; i < chosen; i++) {
        *taken |= scratch->selected[i] == added;
    }
    return OMENDB_OK;
}

static struct platform_mutex *build_stripe(struct graph *graph, uint32_t row)
{
    return &graph->stripes[(row * UINT32_C(2654435769)) >> 24 & (GRAPH_STRIPES - 1)];
}

/* A row that lost its place in a list is offered to the chosen one that covers it, where there is
 * room: the path to it then has one more step, but it is there. Without this some rows among copies
 * of one vector are lost, and lists are thinner than their hops allow; with it recall at equal
 * distances is the same, and at equal ef higher. */
static void build_hand_over(struct build *build, uint32_t added)
{
    const struct graph_scratch *scratch = build->scratch;
    const struct graph_hop *rejected = &scratch->hops[1];

    for (uint32_t i = 0; i < rejected->count; i++) {
        const uint32_t row = rejected->rows[i], cover = scratch->covers[i];
        uint32_t *slots = (uint32_t *)(void *)rows_at(&build->view.links, cover);
        struct platform_mutex *stripe = build_stripe(build->graph, cover);
        if (row == added) {
            continue;
        }
        platform_mutex_lock(stripe);
        for (uint32_t at = 0; at < build->view.links_per_row; at++) {
            const uint32_t there = graph_slot_load(&slots[at]);
            if (there == cover || there == row) {
                graph_slot_store(&slots[at], row);
                break;
            }
        }
        platform_mutex_unlock(stripe);
    }
}

/* The link from `owner` to `added`; *taken is set if it is there now. */
static int build_link_back(struct build *build, uint32_t level, uint32_t owner, uint32_t added,
                           int *taken)
{
    struct platform_mutex *stripe = build_stripe(build->graph, owner);
    uint32_t *slots, length, i;
    int code = graph_view_slots(&build->view, owner, level, &slots, &length);

    if (code != OMENDB_OK) {
        return code;
    }
    build->scratch->hops[1].count = 0;
    platform_mutex_lock(stripe);
    for (i = 0; i < length; i++) {
        const uint32_t row = graph_slot_load(&slots[i]);
        if (row == owner || row == added) {
            graph_slot_store(&slots[i], added);
            *taken = 1;
            break;
        }
    }
    if (i == length) {
        code = build_choose_again(build, owner, slots, length, added, taken);
    }
    platform_mutex_unlock(stripe);
    if (level == 0) {
        build_hand_over(build, added);
    }
    return code;
}

/* Writes the row's own lists from the top level down. */
static int build_own_lists(struct build *build, uint32_t level, uint64_t start)
{
    struct graph_walk_terms terms = {.view = &build->view,
                                     .scratch = build->scratch,
                                     .query = build->vector,
                                     .tie_mask = build->row,
                                     .ef = build->graph->config.ef_construction,
                                     .tie_limit = build->graph->config.ef_construction / 2};

    for (uint32_t above = level + 1; above > 0; above--) {
        const struct graph_keys *pool = &build->scratch->pool;
        uint32_t *slots, length, chosen;
        int code;
        terms.level = above - 1;
        code = graph_walk(&terms, start);
        if (code == OMENDB_OK) {
            code = graph_view_slots(&build->view, build->row, terms.level, &slots, &length);
        }
        if (code != OMENDB_OK) {
            return code;
        }
        if (pool->count == 0) {
            continue;
        }
        start = pool->keys[0];
        chosen = build_select(&build->view, build->scratch, build->row, 0, build->view.M, NULL);
        build_store_selected(build->scratch, chosen, slots, length, build->row);
    }
    return OMENDB_OK;
}

/* Where a list has its first free slot or `row`; the last slot when it has neither. */
static uint32_t build_slot_for(const uint32_t *slots, uint32_t length, uint32_t owner, uint32_t row)
{
    uint32_t at = 0;

    while (at < length - 1 && graph_slot_load(&slots[at]) != owner &&
           graph_slot_load(&slots[at]) != row) {
        at++;
    }
    return at;
}

/* Links `from` to `row` at the base. If that takes a slot, the link that stood there starts from
 * `row` instead, so that a path through it stays one. `row` has a free slot or is not reachable
 * itself. */
static void build_splice(struct graph *graph, const struct graph_view *view, uint32_t from,
                         uint32_t row)
{
    uint32_t *from_slots = (uint32_t *)(void *)rows_at(&view->links, from);
    uint32_t *row_slots = (uint32_t *)(void *)rows_at(&view->links, row);
    const uint32_t length = view->links_per_row;
    struct platform_mutex *stripe = build_stripe(graph, from);
    uint32_t *slot, moved;

    platform_mutex_lock(stripe);
    slot = &from_slots[build_slot_for(from_slots, length, from, row)];
    moved = graph_slot_load(slot);
    if (moved != from && moved != row) {
        graph_slot_store(&row_slots[build_slot_for(row_slots, length, row, moved)], moved);
    }
    graph_slot_store(slot, row);
    platform_mutex_unlock(stripe);
}

/* Writes the links back to the row from the base up. A damaged file under one of them does not stop
 * the others. */
static int build_links_back(struct build *build, uint32_t level)
{
    int result = OMENDB_OK;

    for (uint32_t at = 0; at <= level; at++) {
        uint32_t *slots, length, nearest = build->row;
        int taken = 0;
        int code = graph_view_slots(&build->view, build->row, at, &slots, &length);
        for (uint32_t i = 0; i < length && code == OMENDB_OK; i++) {
            const uint32_t neighbour = graph_slot_load(&slots[i]);
            if (neighbour != build->row && neighbour < build->view.count) {
                const int failed = build_link_back(build, at, neighbour, build->row, &taken);
                result = failed != OMENDB_OK ? failed : result;
                nearest = nearest == build->row ? neighbour : nearest;
            }
        }
        if (at == 0 && !taken && nearest != build->row) {
            build_splice(build->graph, &build->view, nearest, build->row);
        }
        result = code != OMENDB_OK ? code : result;
    }
    return result;
}

static int build_begin(struct build *build, struct graph *graph, struct graph_scratch *scratch,
                       uint32_t row)
{
    build->graph = graph;
    build->scratch = scratch;
    build->row = row;
    graph_get_view(graph, &build->view);
    assert(row < build->view.count);
    build->vector = rows_at(&build->view.vectors, row);
    if (graph_scratch_reserve_hop(scratch, graph->links_per_row) != OMENDB_OK) {
        return OMENDB_NOMEM;
    }
    return graph_view_touch_vector(&build->view, row);
}

OMENDB_INTERNAL int graph_insert(struct graph *graph, struct graph_scratch *scratch, uint32_t row)
{
    struct build build;
    struct graph_walk_terms terms;
    uint32_t level;
    uint64_t start;
    int code = build_begin(&build, graph, scratch, row);

    if (code != OMENDB_OK) {
        return code;
    }
    level = *rows_at(&build.view.levels, row);
    if (build.view.entry_row == GRAPH_NO_ROW) {
        if (graph_offer_entry(graph, row, level)) {
            return OMENDB_OK;
        }
        graph_get_view(graph, &build.view);
    }
    memset(&terms, 0, sizeof terms);
    terms.view = &build.view;
    terms.scratch = scratch;
    terms.query = build.vector;
    terms.tie_mask = row;
    terms.level = level < build.view.entry_level ? level : build.view.entry_level;
    terms.ef = graph->config.ef_construction;
    code = graph_walk_descend(&terms, &start);
    if (code == OMENDB_OK) {
        code = build_own_lists(&build, terms.level, start);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    code = build_links_back(&build, terms.level);
    if (level > build.view.entry_level) {
        (void)graph_offer_entry(graph, row, level);
    }
    return code;
}

/* Taking over */

OMENDB_INTERNAL int graph_adopt_begin(struct graph *graph, const struct graph_view *source,
                                      const uint32_t *old_to_new, uint32_t kept)
{
    uint8_t *levels;
    int code = OMENDB_OK;

    assert(graph->reserved == 0 && source->M == graph->config.M);
    graph->adopted = kept;
    if (kept == 0) {
        return OMENDB_OK;
    }
    levels = memory_zalloc(graph->memory, kept);
    if (levels == NULL) {
        return OMENDB_NOMEM;
    }
    for (uint32_t row = 0; row < source->count && code == OMENDB_OK; row++) {
        if (old_to_new[row] < kept) {
            uint8_t level;
            code = graph_view_touch(source, source->levels_offset, row, sizeof level);
            if (code == OMENDB_OK) {
                level = *rows_at(&source->levels, row);
                levels[old_to_new[row]] = level < GRAPH_MAX_LEVEL ? level : GRAPH_MAX_LEVEL;
            }
        }
    }
    if (code == OMENDB_OK) {
        code = graph_reserve_levels(graph, kept, levels);
    }
    memory_free(graph->memory, levels, kept);
    return code;
}

/* Adds to hops[0] the kept neighbours of `from` that were not met yet, and the dropped ones to
 * hops[1]. */
static int build_adopt_visit(const struct graph_view *source, const uint32_t *old_to_new,
                             struct graph_scratch *scratch, uint32_t from, uint32_t level)
{
    struct graph_hop *found = &scratch->hops[0], *dropped = &scratch->hops[1];
    uint32_t *slots, length;
    int code = graph_view_slots(source, from, level, &slots, &length);

    for (uint32_t i = 0; i < length && code == OMENDB_OK && found->count < BUILD_ADOPT_ROOM; i++) {
        const uint32_t neighbour = graph_slot_load(&slots[i]);
        if (neighbour >= source->count || !graph_scratch_mark(scratch, neighbour)) {
            continue;
        }
        if (old_to_new[neighbour] != GRAPH_NO_ROW) {
            found->rows[found->count++] = neighbour;
        } else if (dropped->count < BUILD_ADOPT_EXPANDED) {
            dropped->rows[dropped->count++] = neighbour;
        }
    }
    return code;
}

/* Collects in hops[0] kept rows, each once: first the row's neighbours (*kept of them) and then,
 * through dropped ones, theirs. */
static int build_adopt_collect(const struct graph_view *source, const uint32_t *old_to_new,
                               struct graph_scratch *scratch, uint32_t row, uint32_t level,
                               uint32_t *kept)
{
    const struct graph_hop *found = &scratch->hops[0], *dropped = &scratch->hops[1];
    int code;

    scratch->hops[0].count = scratch->hops[1].count = 0;
    (void)graph_scratch_mark(scratch, row);
    code = build_adopt_visit(source, old_to_new, scratch, row, level);
    *kept = found->count;
    for (uint32_t i = 0; i < dropped->count && code == OMENDB_OK; i++) {
        code = build_adopt_visit(source, old_to_new, scratch, dropped->rows[i], level);
    }
    graph_scratch_clear_marks(scratch);
    return code;
}

/* Leaves in scratch->selected what row `row` of the source is to be linked to: all that is left of
 * its list, which is a good choice still, and into the free slots what the heuristic takes of the
 * others. Choosing everything anew costs the most navigable links: 0.02 of recall at 30 % dropped.
 * Considering only the nearest of the others costs 0.007. */
static int build_adopt_select(const struct graph_view *source, struct graph_scratch *scratch,
                              uint32_t row, uint32_t kept, uint32_t length, uint32_t *chosen)
{
    struct graph_hop *found = &scratch->hops[0];
    int code = OMENDB_OK;

    kept = kept < length ? kept : length;
    for (uint32_t i = 0; i < kept && code == OMENDB_OK; i++) {
        scratch->selected[i] = found->rows[i];
        scratch->selected_vectors[i] = rows_at(&source->vectors, found->rows[i]);
        code = graph_view_touch_vector(source, found->rows[i]);
    }
    *chosen = kept;
    if (code != OMENDB_OK || found->count == kept || kept == length) {
        return code;
    }
    found->count -= kept;
    memmove(found->rows, found->rows + kept, found->count * sizeof *found->rows);
    code = build_keys_of_hop(source, scratch, row);
    if (code == OMENDB_OK) {
        *chosen = build_select(source, scratch, row, kept, length, NULL);
    }
    return code;
}

/* Writes the list of source row `row` as that of its new number. */
static int build_adopt_list(const struct graph_view *view, const struct graph_view *source,
                            const uint32_t *old_to_new, struct graph_scratch *scratch, uint32_t row,
                            uint32_t level)
{
    uint32_t *slots, length, kept, chosen;
    int code = build_adopt_collect(source, old_to_new, scratch, row, level, &kept);

    if (code == OMENDB_OK) {
        code = graph_view_slots(view, old_to_new[row], level, &slots, &length);
    }
    if (code == OMENDB_OK) {
        code = build_adopt_select(source, scratch, row, kept, length, &chosen);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    for (uint32_t i = 0; i < chosen; i++) {
        scratch->selected[i] = old_to_new[scratch->selected[i]];
    }
    build_store_selected(scratch, chosen, slots, length, old_to_new[row]);
    return OMENDB_OK;
}

OMENDB_INTERNAL int graph_adopt_rows(struct graph *graph, const struct graph_view *source,
                                     const uint32_t *old_to_new, struct graph_scratch *scratch,
                                     uint32_t first, uint32_t last)
{
    struct graph_view view;
    int code = graph_scratch_reserve_marks(scratch, source->count);

    if (code == OMENDB_OK) {
        code = graph_scratch_reserve_hop(scratch, BUILD_ADOPT_ROOM);
    }
    graph_get_view(graph, &view);
    for (uint32_t row = first; row < last && code == OMENDB_OK; row++) {
        const uint32_t to = old_to_new[row];
        if (to == GRAPH_NO_ROW) {
            continue;
        }
        code = graph_view_touch_vector(source, row);
        for (uint32_t at = 0; at <= *rows_at(&view.levels, to) && code == OMENDB_OK; at++) {
            code = build_adopt_list(&view, source, old_to_new, scratch, row, at);
        }
    }
    return code;
}

/* Repairing */

struct build_reach {
    uint64_t *reached;
    uint32_t *queue;
    uint32_t found;
};

/* The nearest row to `row` that a path leads to. */
static int build_nearest_reached(struct graph *graph, struct graph_scratch *scratch,
                                 const struct graph_view *view, const struct build_reach *reach,
                                 uint32_t row, uint32_t *nearest)
{
    struct graph_walk_terms terms = {.view = view,
                                     .scratch = scratch,
                                     .tie_mask = row,
                                     .query = rows_at(&view->vectors, row),
                                     .ef = graph->config.ef_construction};
    uint64_t start;
    int code = graph_view_touch_vector(view, row);

    *nearest = view->entry_row;
    if (code == OMENDB_OK) {
        code = graph_walk_descend(&terms, &start);
    }
    if (code == OMENDB_OK) {
        code = graph_walk(&terms, start);
    }
    for (size_t i = 0; i < scratch->pool.count && code == OMENDB_OK; i++) {
        const uint32_t near = graph_key_row(scratch->pool.keys[i], row);
        if ((reach->reached[near >> 6] >> (near & 63) & 1) != 0) {
            *nearest = near;
            break;
        }
    }
    return code;
}

static int build_repair_rows(struct graph *graph, struct graph_scratch *scratch,
                             const struct graph_view *view, uint32_t indexed,
                             struct build_reach *reach)
{
    int code = graph_view_reach(view, view->entry_row, reach->reached, reach->queue, &reach->found);

    for (uint32_t row = 0; row < indexed && code == OMENDB_OK && reach->found < indexed; row++) {
        uint32_t nearest;
        if ((reach->reached[row >> 6] >> (row & 63) & 1) != 0) {
            continue;
        }
        code = build_nearest_reached(graph, scratch, view, reach, row, &nearest);
        if (code == OMENDB_OK) {
            build_splice(graph, view, nearest, row);
            code = graph_view_reach(view, row, reach->reached, reach->queue, &reach->found);
        }
    }
    return code;
}

OMENDB_INTERNAL int graph_repair(struct graph *graph, struct graph_scratch *scratch,
                                 uint32_t indexed)
{
    struct graph_view view;
    struct build_reach reach = {NULL, NULL, 0};
    size_t words;
    int code = OMENDB_NOMEM;

    graph_get_view(graph, &view);
    if (view.entry_row == GRAPH_NO_ROW) {
        return OMENDB_OK;
    }
    words = (size_t)view.count / 64 + 1;
    reach.reached = memory_zalloc(graph->memory, memory_multiply(words, sizeof *reach.reached));
    reach.queue = memory_array(graph->memory, view.count, sizeof *reach.queue);
    if (reach.reached != NULL && reach.queue != NULL) {
        code = build_repair_rows(graph, scratch, &view, indexed, &reach);
    }
    memory_free(graph->memory, reach.queue, (size_t)view.count * sizeof *reach.queue);
    memory_free(graph->memory, reach.reached, words * sizeof *reach.reached);
    return code;
}

OMENDB_INTERNAL void graph_cut(struct graph *graph, uint32_t rows)
{
    struct graph_view view;

    graph_get_view(graph, &view);
    for (uint32_t row = 0; row < rows; row++) {
        for (uint32_t level = 0; level <= *rows_at(&view.levels, row); level++) {
            uint32_t *slots, length;
            const int code = graph_view_slots(&view, row, level, &slots, &length);
            for (uint32_t i = 0; code == OMENDB_OK && i < length; i++) {
                if (graph_slot_load(&slots[i]) >= rows) {
                    graph_slot_store(&slots[i], row);
                }
            }
        }
    }
}

/* The first row of the highest level is the entry. */
static void build_adopt_entry(struct graph *graph)
{
    const struct rows_view levels = rows_store_view(&graph->levels);
    uint32_t entry = 0;

    for (uint32_t row = 1; row < graph->adopted; row++) {
        if (*rows_at(&levels, row) > *rows_at(&levels, entry)) {
            entry = row;
        }
    }
    (void)graph_offer_entry(graph, entry, *rows_at(&levels, entry));
}

OMENDB_INTERNAL int graph_adopt_end(struct graph *graph)
{
    struct graph_scratch *scratch;
    int code;

    if (graph->adopted == 0) {
        return OMENDB_OK;
    }
    scratch = graph_scratch_create(graph->memory);
    if (scratch == NULL) {
        return OMENDB_NOMEM;
    }
    if (atomic_load_explicit(&graph->count, memory_order_relaxed) < graph->adopted) {
        graph_set_count(graph, graph->adopted);
    }
    build_adopt_entry(graph);
    code = graph_repair(graph, scratch, graph->adopted);
    graph_scratch_destroy(scratch);
    return code;
}

#undef BUILD_GROUP
#undef BUILD_ADOPT_EXPANDED
#undef BUILD_ADOPT_ROOM

/* ==============================================================================================
 * graph_bulk.c
 * ============================================================================================== */

/* graph_bulk.c: building a whole graph at once.
 *
 * The rows that have upper levels, one in M, are inserted one by one: a graph of nothing but them.
 * The base lists of all rows are then made anew, in steps that are all parallel:
 *   split     the rows into leaves of at most BULK_LEAF, each row into those of its BULK_FAN
 * nearest leaders (random rows), cells that are too large again among leaders of their own: "ball
 * carving", as in PiPNN (arXiv 2602.21247); leaves    all pairs inside each, both ways; a row keeps
 * the nearest 2M, and the nearest that has upper levels. Splitting and leaves are repeated with
 * other leaders BULK_REPLICAS times; refine    each row meets the neighbours of its nearest and
 * chooses its list among the best of all, and the links at level 1 of that nearest upper row, which
 * lead out of a cluster; accept    each row chooses again among its list and those who chose it. A
 * graph of at most BULK_LEAF rows has all of them as candidates.
 *
 * Choosing is that of HNSW first (near to far, none that a chosen one is nearer to than the owner);
 * free places then go, near to far, to candidates that a chosen one is nearer to, but not by the
 * factor alpha: Vamana's pruning (DiskANN, NeurIPS 2019) in two passes, without which the nearest
 * fill the list before a far one has its turn (10 to 20 % more distances). Distances under L2,
 * cosine and Hamming are squares (for cosine, half of those of unit vectors) and meet alpha
 * squared; under inner product they are replaced, see bulk_distances.
 *
 * Invariants. A list is its first 2M slots that are not the row itself. Leaves have a bounded size,
 * splitting a bounded number of rounds, after which cells are cut up: no data makes it quadratic.
 * Ties go by the XOR of numbers (graph_internal.h), in splitting, too: copies of one vector fall
 * apart into balls of numbers. At most three quarters of a list of nearest, and half of a pool, are
 * at one distance, so that a row beside a mass of copies meets others as well. While leaves are
 * compared, a list's distances are kept as the upper 16 bits of their keys: enough to tell which to
 * measure exactly later.
 *
 * Rejected: the same method for the upper levels, in a tenth of their time (1 % of rows in clusters
 * were not found any more: greedy descent needs the long links that early rows have). A second
 * refinement (a third more time for 1 to 2 % fewer distances). Pools of 100 to 200 candidates (3 to
 * 5 % more distances: long links take the places). Links back one by one with a choice at each full
 * list, as in Vamana, instead of one choice among all of them (several times its work). */

/* ==============================================================================================
 * graph_bulk.h
 * ============================================================================================== */

/* graph_bulk.h: linking all rows of a fresh graph at once, from all pairs inside small parts of
 * them, in a third to a half of the time that one search for each row takes; and choosing the
 * links of a finished graph anew.
 *
 * When to use which. Bulk building costs about half of graph_insert a row, whatever was linked
 * before. So a merge in which half of the rows or more are new is built in bulk as a whole, and its
 * graph is the better one; with fewer new rows the largest input's graph is adopted and they are
 * inserted. */
#ifndef OMENDB_GRAPH_BULK_H
#define OMENDB_GRAPH_BULK_H

/* How the work is spread and stopped. */
struct graph_bulk_terms {
    /* Calls fn(context, index) for each index below `count`, from any threads, and returns when all
     * calls have: OMENDB_OK, or what the first that failed returned, after which it may leave out
     * others. NULL: one after another in the calling thread, which gives the same graph for the
     * same seed and rows every time. */
    int (*parallel)(void *runner, uint64_t count, int (*fn)(void *context, uint64_t index),
                    void *context);
    void *runner;
    /* Called by the calling thread every few hundredths of a second of work, with how much of
     * `total` is done; anything but 0 stops the building. NULL: never called. */
    int (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
};

/* Links rows [0, count) of a graph in which no row is linked yet: after graph_reserve and
 * graph_set_count, with all vectors there. Every row is then reachable. No walkers before it is
 * done: they would find next to nothing. Needs beside the graph at most 6 * M + 60 bytes a row (156
 * for M = 16; about 105 on real data) and 0.6 MiB a thread.
 * Returns OMENDB_OK, OMENDB_DONE (stopped), OMENDB_NOMEM, OMENDB_CORRUPT, OMENDB_IOERR; after
 * anything but the first the graph is only good for graph_destroy. */
OMENDB_INTERNAL int graph_bulk(struct graph *graph, const struct graph_bulk_terms *terms);

/* Chooses the base links of a graph, all of whose rows are linked, anew: each row's among its
 * neighbours and their neighbours, by the rule of graph_bulk. For graphs whose rows were inserted
 * one by one or adopted: walks to the same recall then compute about a tenth fewer distances.
 * Walkers may run; insertions may not. The same returns; a graph that is not finished can still be
 * walked, but rows may be out of reach until graph_repair. */
OMENDB_INTERNAL int graph_refine(struct graph *graph, const struct graph_bulk_terms *terms);

#endif

/* graph_bulk.c, continued */

#define BULK_LEAF         1024 /* members of a leaf at most */
#define BULK_CELL         400  /* members for each leader */
#define BULK_LEADERS      256  /* of one cell at most */
#define BULK_FAN          3    /* leaves of a member in one splitting */
#define BULK_REPLICAS     3    /* splittings */
#define BULK_ROUNDS       6    /* of one splitting */
#define BULK_EXPAND       12   /* neighbours whose lists are looked through */
#define BULK_POOL         48   /* nearest candidates among which a list is chosen */
#define BULK_FAR_SHARE    4 /* 1 / the share of a list that far candidates may take from near ones */
#define BULK_OFFERS       128   /* of those who chose a member, how many it looks at */
#define BULK_ALPHA        1.15f /* of true distances, not squares */
#define BULK_ALPHA_SQUARE (BULK_ALPHA * BULK_ALPHA)
#define BULK_GRAIN        256   /* members of a step */
#define BULK_SLICE        64    /* steps between two calls of `progress` */
#define BULK_TILE         256   /* vectors that many are compared with at a time, at most */
#define BULK_TILE_BYTES   65536 /* a part of the second cache */
#define BULK_GROUP        4
#define BULK_MASK_GROUP   16
#define BULK_GOLDEN       UINT32_C(2654435769)

_Static_assert(BULK_LEAF / BULK_CELL + 1 >= BULK_FAN, "a cell has a leader for each choice");
_Static_assert(BULK_LEADERS <= UINT16_MAX, "choices are 16 bits");
_Static_assert(BULK_TILE % BULK_MASK_GROUP == 0, "masks are computed in groups");

struct bulk_cell {
    uint32_t first; /* in entries */
    uint32_t count;
    uint32_t leader;  /* its first one in leaders */
    uint32_t leaders; /* 0: a leaf */
    uint32_t step;    /* its first one of the round */
};

/* Working memory of one step. */
struct bulk_work {
    struct bulk_work *next;
    struct graph_scratch *scratch; /* for insertion; NULL until needed */
    void *block;                   /* the arrays below */
    size_t bytes;
    uint64_t *keys;       /* room */
    uint64_t *far_keys;   /* 2 * places + 1 */
    uint32_t *found;      /* room */
    const void **vectors; /* room, or a leaf */
    float *distances;     /* room, or a tile */
    uint32_t *hash;       /* hash_mask + 1 */
    uint32_t hash_mask;
    uint32_t found_count;
    uint32_t far_count;
    uint64_t *lists;   /* keys, `places` for each of a leaf */
    uint32_t *lengths; /* a leaf */
    uint32_t *uppers;  /* a leaf's members with links above */
    const void **upper_vectors;
    uint32_t upper_count;
    float *worst;     /* a leaf */
    uint32_t *chosen; /* places */
    const void **chosen_vectors;
};

struct bulk {
    struct graph *graph;
    struct memory *memory;
    const struct graph_bulk_terms *terms;
    struct graph_view view;
    float *heights;  /* under inner product, by row; else NULL */
    float radius;    /* square of the greatest norm */
    uint32_t places; /* of a list */
    uint32_t room;   /* for candidates of one member */
    int is_finished; /* lists are chosen ones, not the nearest */
    uint64_t random;
    uint64_t done, total;
    struct platform_mutex mutex; /* guards `works` */
    struct bulk_work *works;     /* not in use */

    uint32_t count; /* rows */
    uint16_t *ranks;
    uint32_t *uppers; /* the nearest other member that has links above; GRAPH_NO_ROW */
    uint16_t *upper_ranks;

    uint32_t *entries; /* members by cell; of the first round: not there yet, each one is its own */
    uint32_t *sorted;
    uint16_t *choices;
    uint32_t entry_count;
    uint32_t fan;
    int is_first;
    struct bulk_cell *cells;
    uint32_t cell_count;
    size_t cell_room;
    uint32_t *leaders;
    uint32_t leader_count;

    uint32_t *order; /* members of a leaf side by side, for the cache; NULL: as numbered */
    uint32_t *offers;
    size_t *offer_starts; /* count + 1 */
    _Atomic uint32_t *offer_counts;
};

/* Rows */

static inline const void *bulk_vector(const struct bulk *bulk, uint32_t row)
{
    return rows_at(&bulk->view.vectors, row);
}

static inline uint32_t *bulk_list(const struct bulk *bulk, uint32_t row)
{
    return (uint32_t *)(void *)rows_at(&bulk->view.links, row);
}

static struct platform_mutex *bulk_stripe(const struct bulk *bulk, uint32_t member)
{
    return &bulk->graph->stripes[(member * BULK_GOLDEN) >> 24 & (GRAPH_STRIPES - 1)];
}

/* Distances of a member from `count` others, given with their vectors. Under inner product they are
 * half of squared distances, too: of the vectors with one more element each, its height, that gives
 * all of them the greatest norm. What is nearest to a query by inner product is nearest to it there
 * (Bachrach et al., RecSys 2014). */
static void bulk_distances(const struct bulk *bulk, uint32_t member, const uint32_t *others,
                           const void *const *vectors, uint32_t count, float *distances)
{
    float height;

    bulk->view.kernel->many(bulk_vector(bulk, member), vectors, count, bulk->view.dim, distances);
    if (bulk->heights == NULL) {
        return;
    }
    height = bulk->heights[member];
    for (uint32_t i = 0; i < count; i++) {
        const float square = bulk->radius + distances[i] - height * bulk->heights[others[i]];
        distances[i] = square < 0 ? 0 : square;
    }
}

/* The rule of the many small arrays below: allocated and freed by count. */
static void *bulk_array(const struct bulk *bulk, size_t count, size_t size)
{
    return memory_alloc_aligned(bulk->memory, memory_multiply(count, size));
}

static void bulk_array_free(const struct bulk *bulk, void *array, size_t count, size_t size)
{
    memory_free_aligned(bulk->memory, array, count * size);
}

/* Working memory */

static uint32_t bulk_hash_size(uint32_t room)
{
    uint32_t size = 1024;

    while (size < 2 * room) {
        size *= 2;
    }
    return size;
}

/* The next `bytes` of the block, on a cache line; NULL while only the size is asked for. */
static void *bulk_carve(char *block, size_t *at, size_t count, size_t size)
{
    char *part = block != NULL ? block + *at : NULL;

    *at += (count * size + OMENDB_CACHE_LINE - 1) / OMENDB_CACHE_LINE * OMENDB_CACHE_LINE;
    return part;
}

/* Sets the arrays of a work into the block; returns how many bytes they take. */
static size_t bulk_work_carve(const struct bulk *bulk, struct bulk_work *work, char *block)
{
    const size_t room = bulk->room, places = bulk->places;
    const size_t vectors = room > BULK_LEAF ? room : BULK_LEAF;
    const size_t distances = room > BULK_TILE ? room : BULK_TILE;
    size_t at = 0;

    work->hash_mask = bulk_hash_size(bulk->room) - 1;
    work->keys = bulk_carve(block, &at, room, sizeof *work->keys);
    work->far_keys = bulk_carve(block, &at, 2 * places + 1, sizeof *work->far_keys);
    work->found = bulk_carve(block, &at, room, sizeof *work->found);
    work->vectors = bulk_carve(block, &at, vectors, sizeof *work->vectors);
    work->distances = bulk_carve(block, &at, distances, sizeof *work->distances);
    work->hash = bulk_carve(block, &at, work->hash_mask + 1, sizeof *work->hash);
    work->lists = bulk_carve(block, &at, BULK_LEAF * places, sizeof *work->lists);
    work->lengths = bulk_carve(block, &at, BULK_LEAF, sizeof *work->lengths);
    work->uppers = bulk_carve(block, &at, BULK_LEAF, sizeof *work->uppers);
    work->upper_vectors = bulk_carve(block, &at, BULK_LEAF, sizeof *work->upper_vectors);
    work->worst = bulk_carve(block, &at, BULK_LEAF + BULK_MASK_GROUP, sizeof *work->worst);
    work->chosen = bulk_carve(block, &at, places, sizeof *work->chosen);
    work->chosen_vectors = bulk_carve(block, &at, places, sizeof *work->chosen_vectors);
    return at;
}

static struct bulk_work *bulk_work_create(const struct bulk *bulk)
{
    struct bulk_work *work = memory_zalloc(bulk->memory, sizeof *work);

    if (work == NULL) {
        return NULL;
    }
    work->bytes = bulk_work_carve(bulk, work, NULL);
    work->block = memory_alloc_aligned(bulk->memory, work->bytes);
    if (work->block == NULL) {
        memory_free(bulk->memory, work, sizeof *work);
        return NULL;
    }
    (void)bulk_work_carve(bulk, work, work->block);
    return work;
}

static struct bulk_work *bulk_work_take(struct bulk *bulk)
{
    struct bulk_work *work;

    platform_mutex_lock(&bulk->mutex);
    work = bulk->works;
    if (work != NULL) {
        bulk->works = work->next;
    }
    platform_mutex_unlock(&bulk->mutex);
    return work != NULL ? work : bulk_work_create(bulk);
}

static void bulk_work_give(struct bulk *bulk, struct bulk_work *work)
{
    platform_mutex_lock(&bulk->mutex);
    work->next = bulk->works;
    bulk->works = work;
    platform_mutex_unlock(&bulk->mutex);
}

static void bulk_free_works(struct bulk *bulk)
{
    while (bulk->works != NULL) {
        struct bulk_work *work = bulk->works;
        bulk->works = work->next;
        graph_scratch_destroy(work->scratch);
        memory_free_aligned(bulk->memory, work->block, work->bytes);
        memory_free(bulk->memory, work, sizeof *work);
    }
}

/* Steps in parallel */

typedef int bulk_step(struct bulk *bulk, struct bulk_work *work, uint32_t index);

struct bulk_slice {
    struct bulk *bulk;
    bulk_step *step;
    uint32_t first;
};

static int bulk_run_step(void *context, uint64_t index)
{
    const struct bulk_slice *slice = context;
    struct bulk_work *work = bulk_work_take(slice->bulk);
    int code;

    if (work == NULL) {
        return OMENDB_NOMEM;
    }
    code = slice->step(slice->bulk, work, slice->first + (uint32_t)index);
    bulk_work_give(slice->bulk, work);
    return code;
}

static int bulk_run_slice(struct bulk *bulk, struct bulk_slice *slice, uint32_t count)
{
    int code = OMENDB_OK;

    if (bulk->terms->parallel != NULL) {
        return bulk->terms->parallel(bulk->terms->runner, count, bulk_run_step, slice);
    }
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++) {
        code = bulk_run_step(slice, i);
    }
    return code;
}

/* Runs `steps` steps, which are `worth` of the total. */
static int bulk_run(struct bulk *bulk, uint32_t steps, uint32_t worth, bulk_step *step)
{
    const struct graph_bulk_terms *terms = bulk->terms;
    int code = OMENDB_OK;

    for (uint32_t first = 0; first < steps && code == OMENDB_OK; first += BULK_SLICE) {
        struct bulk_slice slice = {bulk, step, first};
        const uint32_t count = steps - first < BULK_SLICE ? steps - first : BULK_SLICE;
        code = bulk_run_slice(bulk, &slice, count);
        if (code == OMENDB_OK && terms->progress != NULL) {
            const uint64_t done = bulk->done + (uint64_t)worth * (first + count) / steps;
            if (terms->progress(terms->context, done, bulk->total) != 0) {
                code = error_set(OMENDB_DONE, "stopped by the progress function");
            }
        }
    }
    bulk->done += worth;
    return code;
}

static uint32_t bulk_steps(uint32_t count)
{
    return count / BULK_GRAIN + (count % BULK_GRAIN != 0);
}

/* The end of the step's members from its first, index * BULK_GRAIN. */
static uint32_t bulk_step_end(const struct bulk *bulk, uint32_t index)
{
    const uint32_t first = index * BULK_GRAIN;

    return bulk->count - first < BULK_GRAIN ? bulk->count : first + BULK_GRAIN;
}

static uint32_t bulk_tile(const struct bulk *bulk)
{
    const size_t tile = BULK_TILE_BYTES / (bulk->view.vectors.stride + 1) / BULK_MASK_GROUP;

    return tile < 1                             ? BULK_MASK_GROUP
           : tile > BULK_TILE / BULK_MASK_GROUP ? BULK_TILE
                                                : (uint32_t)tile * BULK_MASK_GROUP;
}

/* Splitting */

/* The generator of SplitMix64. */
static uint64_t bulk_random(struct bulk *bulk)
{
    uint64_t hash = bulk->random += UINT64_C(0x9e3779b97f4a7c15);

    hash = (hash ^ (hash >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    hash = (hash ^ (hash >> 27)) * UINT64_C(0x94d049bb133111eb);
    return hash ^ (hash >> 31);
}

static uint32_t bulk_entry(const struct bulk *bulk, uint32_t at)
{
    return bulk->is_first ? at : bulk->entries[at];
}

/* One leader out of each of equal runs of the cell. */
static void bulk_pick_leaders(struct bulk *bulk, const struct bulk_cell *cell)
{
    for (uint32_t i = 0; i < cell->leaders; i++) {
        const uint64_t from = (uint64_t)cell->count * i / cell->leaders;
        const uint64_t to = (uint64_t)cell->count * (i + 1) / cell->leaders;
        const uint32_t at = cell->first + (uint32_t)(from + bulk_random(bulk) % (to - from));
        bulk->leaders[cell->leader + i] = bulk_entry(bulk, at);
    }
}

/* The nearest leaders of one member so far. Those of a member whose distances are no numbers are
 * the first ones. */
struct bulk_nearest {
    uint64_t keys[BULK_FAN];
    uint16_t leaders[BULK_FAN];
};

static void bulk_offer_leader(const struct bulk *bulk, struct bulk_nearest *nearest, uint64_t key,
                              uint32_t leader)
{
    uint32_t at = bulk->fan - 1;

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
static void bulk_compare_leaders(const struct bulk *bulk, struct bulk_work *work,
                                 const struct bulk_cell *cell, uint32_t first, uint32_t count,
                                 uint32_t member, struct bulk_nearest *nearest)
{
    const uint32_t *leaders = bulk->leaders + cell->leader + first;
    const float *distances = work->distances;

    bulk_distances(bulk, member, leaders, work->vectors, count, work->distances);
    for (uint32_t i = 0; i < count; i++) {
        const float farthest = graph_key_distance(nearest->keys[bulk->fan - 1]); /* NaN: none yet */
        if (!isnan(distances[i]) && !(distances[i] > farthest)) {
            bulk_offer_leader(bulk, nearest, graph_key(distances[i], leaders[i] ^ member),
                              first + i);
        }
    }
}

static const struct bulk_cell *bulk_cell_of_step(const struct bulk *bulk, uint32_t step)
{
    uint32_t low = 0, high = bulk->cell_count;

    while (high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        if (bulk->cells[middle].step <= step) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return &bulk->cells[low];
}

/* Chooses the leaders of the members of one step. */
static int bulk_split_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const struct bulk_cell *cell = bulk_cell_of_step(bulk, index);
    const uint32_t from = (index - cell->step) * BULK_GRAIN, tile = bulk_tile(bulk);
    const uint32_t rows = cell->count - from < BULK_GRAIN ? cell->count - from : BULK_GRAIN;
    uint16_t *choices = bulk->choices + ((size_t)cell->first + from) * bulk->fan;
    struct bulk_nearest nearest[BULK_GRAIN];

    for (uint32_t i = 0; i < rows * BULK_FAN; i++) {
        nearest[i / BULK_FAN].keys[i % BULK_FAN] = GRAPH_KEY_NONE;
        nearest[i / BULK_FAN].leaders[i % BULK_FAN] = (uint16_t)(i % BULK_FAN);
    }
    for (uint32_t first = 0; first < cell->leaders; first += tile) {
        const uint32_t count = cell->leaders - first < tile ? cell->leaders - first : tile;
        for (uint32_t i = 0; i < count; i++) {
            work->vectors[i] = bulk_vector(bulk, bulk->leaders[cell->leader + first + i]);
        }
        for (uint32_t i = 0; i < rows; i++) {
            const uint32_t member = bulk_entry(bulk, cell->first + from + i);
            bulk_compare_leaders(bulk, work, cell, first, count, member, &nearest[i]);
        }
    }
    for (uint32_t i = 0; i < rows; i++) {
        memcpy(choices + i * bulk->fan, nearest[i].leaders, bulk->fan * sizeof *choices);
    }
    return OMENDB_OK;
}

/* Sorts the cell's entries by their choices and appends the cells that they make. */
static void bulk_sort_cell(struct bulk *bulk, const struct bulk_cell *cell, uint32_t *starts,
                           struct bulk_cell *cells, uint32_t *count)
{
    const uint32_t choice_count = cell->count * bulk->fan;
    const uint16_t *choices = bulk->choices + (size_t)cell->first * bulk->fan;
    uint32_t first = cell->first * bulk->fan;

    memset(starts, 0, cell->leaders * sizeof *starts);
    for (uint32_t i = 0; i < choice_count; i++) {
        starts[choices[i]]++;
    }
    for (uint32_t i = 0; i < cell->leaders; i++) {
        const uint32_t length = starts[i];
        starts[i] = first;
        if (length != 0) {
            cells[(*count)++] = (struct bulk_cell){.first = first, .count = length};
        }
        first += length;
    }
    for (uint32_t i = 0; i < choice_count; i++) {
        bulk->sorted[starts[choices[i]]++] = bulk_entry(bulk, cell->first + i / bulk->fan);
    }
}

/* Replaces the cells by those that their leaders make, the others staying as they are. */
static void bulk_sort_cells(struct bulk *bulk, uint32_t *starts, struct bulk_cell *cells,
                            uint32_t *count)
{
    for (uint32_t i = 0; i < bulk->cell_count; i++) {
        const struct bulk_cell *cell = &bulk->cells[i];
        if (cell->leaders == 0) {
            cells[(*count)++] = *cell;
            continue;
        }
        bulk_sort_cell(bulk, cell, starts, cells, count);
        if (!bulk->is_first) {
            memcpy(bulk->entries + cell->first, bulk->sorted + cell->first,
                   cell->count * sizeof *bulk->sorted);
        }
    }
    if (bulk->is_first) {
        uint32_t *entries = bulk->sorted;
        bulk->sorted = bulk->entries;
        bulk->entries = entries;
    }
}

/* Plans a round: leaders and steps of the cells that are too large. */
static uint32_t bulk_plan_round(struct bulk *bulk)
{
    uint32_t steps = 0;

    bulk->fan = bulk->is_first ? BULK_FAN : 1;
    bulk->leader_count = 0;
    for (uint32_t i = 0; i < bulk->cell_count; i++) {
        struct bulk_cell *cell = &bulk->cells[i];
        const uint32_t leaders = cell->count / BULK_CELL + 1;
        cell->leaders = cell->count <= BULK_LEAF ? 0
                        : leaders < BULK_LEADERS ? leaders
                                                 : BULK_LEADERS;
        cell->leader = bulk->leader_count;
        cell->step = steps;
        bulk->leader_count += cell->leaders;
        steps += cell->leaders != 0 ? bulk_steps(cell->count) : 0;
    }
    return steps;
}

static void bulk_replace_cells(struct bulk *bulk, struct bulk_cell *cells, size_t room,
                               uint32_t count)
{
    memory_free(bulk->memory, bulk->cells, bulk->cell_room * sizeof *bulk->cells);
    bulk->cells = cells;
    bulk->cell_room = room;
    bulk->cell_count = count;
}

/* One round, for which bulk_plan_round found something to do. */
static int bulk_split_round(struct bulk *bulk, uint32_t steps)
{
    struct memory *memory = bulk->memory;
    const size_t leaders = bulk->leader_count, room = leaders + bulk->cell_count;
    uint32_t *starts = memory_array(memory, leaders, sizeof *starts);
    struct bulk_cell *cells = memory_array(memory, room, sizeof *cells);
    uint32_t count = 0;
    int code = OMENDB_NOMEM;

    bulk->leaders = memory_array(memory, leaders, sizeof *bulk->leaders);
    if (starts != NULL && cells != NULL && bulk->leaders != NULL) {
        for (uint32_t i = 0; i < bulk->cell_count; i++) {
            bulk_pick_leaders(bulk, &bulk->cells[i]);
        }
        code = bulk_run(bulk, steps, bulk->is_first ? bulk->count : 0, bulk_split_step);
    }
    if (code == OMENDB_OK) {
        bulk_sort_cells(bulk, starts, cells, &count);
        bulk_replace_cells(bulk, cells, room, count);
    } else {
        memory_free(memory, cells, room * sizeof *cells);
    }
    memory_free(memory, bulk->leaders, leaders * sizeof *bulk->leaders);
    memory_free(memory, starts, leaders * sizeof *starts);
    bulk->leaders = NULL;
    return code;
}

/* Cuts up what no leader could split, by a bounded number of rounds. */
static int bulk_cut_cells(struct bulk *bulk)
{
    uint32_t room = 0, count = 0;
    struct bulk_cell *cells;

    for (uint32_t i = 0; i < bulk->cell_count; i++) {
        room += bulk->cells[i].count / BULK_LEAF + 1;
    }
    cells = memory_array(bulk->memory, room, sizeof *cells);
    if (cells == NULL) {
        return OMENDB_NOMEM;
    }
    for (uint32_t i = 0; i < bulk->cell_count; i++) {
        const struct bulk_cell *cell = &bulk->cells[i];
        const uint32_t parts = cell->count / BULK_LEAF + (cell->count % BULK_LEAF != 0);
        for (uint32_t part = 0; part < parts; part++) {
            const uint32_t from = (uint32_t)((uint64_t)cell->count * part / parts);
            const uint32_t to = (uint32_t)((uint64_t)cell->count * (part + 1) / parts);
            cells[count++] = (struct bulk_cell){.first = cell->first + from, .count = to - from};
        }
    }
    bulk_replace_cells(bulk, cells, room, count);
    return OMENDB_OK;
}

static int bulk_split(struct bulk *bulk)
{
    struct bulk_cell *all = memory_zalloc(bulk->memory, sizeof *all);
    uint32_t steps = 1;
    int code = OMENDB_OK;

    if (all == NULL) {
        return OMENDB_NOMEM;
    }
    all->count = bulk->count;
    bulk_replace_cells(bulk, all, 1, 1);
    bulk->is_first = 1;
    for (uint32_t round = 0; round < BULK_ROUNDS && code == OMENDB_OK; round++) {
        steps = bulk_plan_round(bulk);
        if (steps == 0) {
            break;
        }
        code = bulk_split_round(bulk, steps);
        bulk->is_first = 0;
    }
    return code == OMENDB_OK && steps != 0 ? bulk_cut_cells(bulk) : code;
}

/* Leaves */

/* The greatest distance of a rank. */
static float bulk_rank_limit(uint32_t rank)
{
    const float limit = graph_key_distance(((uint64_t)rank << 16 | 0xffff) << 32);

    return limit < INFINITY ? limit : INFINITY; /* of the infinite rank it is no number */
}

/* Where in a full run of equal distances a key that belongs at `at` pushes out another: the end of
 * the run, `length` if the run is not full yet, or GRAPH_NO_ROW if it is the one that is too much.
 */
static uint32_t bulk_end_of_ties(const uint64_t *list, uint32_t length, uint32_t at, uint64_t key,
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
static void bulk_leaf_offer(const struct bulk *bulk, struct bulk_work *work, uint32_t place,
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
    end = bulk_end_of_ties(list, length, at, key, bulk->places / 4 * 3);
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
static void bulk_leaf_meet(const struct bulk *bulk, struct bulk_work *work, const uint32_t *entries,
                           uint32_t place, uint32_t other, float distance)
{
    const uint64_t key = graph_key(distance, entries[place] ^ entries[other]);

    if (entries[place] == entries[other]) {
        return; /* twice in one leaf: its distances to leaders were no numbers */
    }
    if (distance <= work->worst[place]) {
        bulk_leaf_offer(bulk, work, place, key);
    }
    if (distance <= work->worst[other]) {
        bulk_leaf_offer(bulk, work, other, key);
    }
}

/* Compares the entry `place` of a leaf with those of [first, last), at most a tile. The masks are
 * made in groups of a constant size for the compiler's vectors. */
static void bulk_leaf_compare(const struct bulk *bulk, struct bulk_work *work,
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
                bulk_leaf_meet(bulk, work, entries, place, first + group + i, distances[group + i]);
            }
        }
    }
}

/* What member's list holds at `at`, as rank << 32 | number ^ member; UINT64_MAX at its end. */
static uint64_t bulk_ranked(const struct bulk *bulk, uint32_t member, uint32_t at)
{
    const uint32_t *list = bulk_list(bulk, member);

    if (at == bulk->places || list[at] == member) {
        return UINT64_MAX;
    }
    return (uint64_t)bulk->ranks[(size_t)member * bulk->places + at] << 32 | (list[at] ^ member);
}

/* Merges what a leaf found for a member into its list. Both are ascending; what is in both has the
 * same rank and number in both, except under cosine, where rounding may differ: choosing does not
 * mind. */
static void bulk_merge(const struct bulk *bulk, struct bulk_work *work, uint32_t member,
                       const uint64_t *found, uint32_t found_count)
{
    const uint32_t places = bulk->places;
    uint32_t count = 0, ties = 0, i = 0, j = 0;
    uint32_t *list = bulk_list(bulk, member);
    uint64_t *merged = work->keys;

    platform_mutex_lock(bulk_stripe(bulk, member));
    while (count < places) {
        const uint64_t old = bulk_ranked(bulk, member, i);
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
        bulk->ranks[(size_t)member * places + i] = (uint16_t)(merged[i] >> 32);
    }
    platform_mutex_unlock(bulk_stripe(bulk, member));
}

static int bulk_is_upper(const struct bulk *bulk, uint32_t member)
{
    return *rows_at(&bulk->view.levels, member) > 0;
}

/* Keeps the nearest of the leaf's members with links above, if it is nearer than that of others. */
static void bulk_meet_uppers(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
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
    if (bulk->uppers[member] == GRAPH_NO_ROW || nearest >> 48 < bulk->upper_ranks[member]) {
        bulk->uppers[member] = graph_key_row(nearest, member);
        bulk->upper_ranks[member] = (uint16_t)(nearest >> 48);
    }
    platform_mutex_unlock(bulk_stripe(bulk, member));
}

/* Other leaves of the same members may be compared at the same time: their lists are read and
 * written under their stripes. */
static int bulk_leaf_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const struct bulk_cell *cell = &bulk->cells[index];
    const uint32_t *entries = bulk->entries + cell->first;
    const uint32_t tile = bulk_tile(bulk), last_place = bulk->places - 1;

    work->upper_count = 0;
    for (uint32_t i = 0; i < cell->count; i++) {
        const uint32_t member = entries[i];
        work->lengths[i] = 0;
        if (bulk_is_upper(bulk, member)) {
            work->uppers[work->upper_count] = member;
            work->upper_vectors[work->upper_count++] = bulk_vector(bulk, member);
        }
        work->vectors[i] = bulk_vector(bulk, member);
        platform_mutex_lock(bulk_stripe(bulk, member));
        work->worst[i] =
            bulk_list(bulk, member)[last_place] == member
                ? INFINITY
                : bulk_rank_limit(bulk->ranks[(size_t)member * bulk->places + last_place]);
        platform_mutex_unlock(bulk_stripe(bulk, member));
    }
    for (uint32_t first = 0; first < cell->count; first += tile) {
        const uint32_t last = cell->count - first < tile ? cell->count : first + tile;
        for (uint32_t place = 0; place + 1 < last; place++) {
            bulk_leaf_compare(bulk, work, entries, place, place < first ? first : place + 1, last);
        }
    }
    for (uint32_t i = 0; i < cell->count; i++) {
        const uint32_t ahead = entries[i + 4 < cell->count ? i + 4 : i];
        prefetch_bytes(bulk_list(bulk, ahead), bulk->places * sizeof(uint32_t));
        prefetch_bytes(bulk->ranks + (size_t)ahead * bulk->places,
                       bulk->places * sizeof *bulk->ranks);
        bulk_meet_uppers(bulk, work, entries[i]);
        bulk_merge(bulk, work, entries[i], work->lists + (size_t)i * bulk->places,
                   work->lengths[i]);
    }
    return OMENDB_OK;
}

/* Finding candidates */

static void bulk_find_begin(struct bulk_work *work, uint32_t member)
{
    memset(work->hash, 0xff, ((size_t)work->hash_mask + 1) * sizeof *work->hash);
    work->found_count = 0;
    work->hash[(member * BULK_GOLDEN) >> 8 & work->hash_mask] = member;
}

/* Adds a member to those found unless it is there or is the one that they are found for. */
static void bulk_find(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    const size_t stride = bulk->view.vectors.stride;
    uint32_t at = (member * BULK_GOLDEN) >> 8 & work->hash_mask;

    while (work->hash[at] != GRAPH_NO_ROW && work->hash[at] != member) {
        at = (at + 1) & work->hash_mask;
    }
    if (work->hash[at] == member || work->found_count == bulk->room) {
        return;
    }
    work->hash[at] = member;
    work->vectors[work->found_count] = bulk_vector(bulk, member);
    prefetch_bytes(work->vectors[work->found_count],
                   stride < PREFETCH_MAX_BYTES ? stride : PREFETCH_MAX_BYTES);
    work->found[work->found_count++] = member;
}

static void bulk_find_list(const struct bulk *bulk, struct bulk_work *work, uint32_t of)
{
    const uint32_t *list = bulk_list(bulk, of);

    for (uint32_t i = 0; i < bulk->places; i++) {
        const uint32_t member = graph_slot_load(&list[i]);
        if (member != of) {
            bulk_find(bulk, work, member);
        }
    }
}

/* The links of the level above of the member itself or, where it has none, of the nearest one known
 * that has, with that one. */
static void bulk_find_above(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    uint32_t upper = member, *slots, length;

    for (uint32_t i = 0; bulk->uppers == NULL && i < work->found_count; i++) {
        upper = bulk_is_upper(bulk, upper) ? upper : work->found[i];
    }
    if (bulk->uppers != NULL && !bulk_is_upper(bulk, upper)) {
        upper = bulk->uppers[member];
    }
    if (upper == GRAPH_NO_ROW || !bulk_is_upper(bulk, upper)) {
        return;
    }
    (void)graph_view_slots(&bulk->view, upper, 1, &slots, &length);
    bulk_find(bulk, work, upper);
    for (uint32_t i = 0; i < length; i++) {
        bulk_find(bulk, work, graph_slot_load(&slots[i]));
    }
}

static void bulk_sift(uint64_t *heap, size_t count, size_t at)
{
    const uint64_t key = heap[at];

    for (size_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        child += child + 1 < count && heap[child + 1] < heap[child];
        if (heap[child] >= key) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = key;
}

/* The parts of what was found: the first `own` are the member's list, those up to `kept` the links
 * of the level above. */
struct bulk_parts {
    uint32_t own;
    uint32_t kept;
    uint32_t far; /* where those begin that are candidates however far they are; they end at kept.
                     0: only the farthest of the own list are */
};

static void bulk_sort(uint64_t *keys, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        const uint64_t key = keys[i];
        uint32_t at = i;
        for (; at > 0 && keys[at - 1] > key; at--) {
            keys[at] = keys[at - 1];
        }
        keys[at] = key;
    }
}

/* Makes work->keys a heap of what was found, the nearest on top, and returns its size; what is
 * farther than all of a full own list is left out. Far candidates are sorted in work->far_keys. */
static uint32_t bulk_measure(const struct bulk *bulk, struct bulk_work *work, uint32_t member,
                             struct bulk_parts parts)
{
    uint64_t farthest = parts.own < bulk->places ? GRAPH_KEY_NONE : 0;
    uint32_t count = 0;

    work->far_count = 0;
    bulk_distances(bulk, member, work->found, work->vectors, work->found_count, work->distances);
    for (uint32_t i = 0; i < work->found_count; i++) {
        const uint64_t key = graph_key(work->distances[i], work->found[i] ^ member);
        if (i < parts.own) {
            farthest = key > farthest ? key : farthest;
        }
        if (i < parts.own || key < farthest) {
            work->keys[count++] = key;
        }
        if (i >= parts.far && i < parts.kept) {
            work->far_keys[work->far_count++] = key;
        }
    }
    bulk_sort(work->far_keys, work->far_count);
    if (parts.far == 0 && work->far_count > bulk->places / BULK_FAR_SHARE) {
        const uint32_t left = bulk->places / BULK_FAR_SHARE;
        memmove(work->far_keys, work->far_keys + work->far_count - left,
                left * sizeof *work->far_keys);
        work->far_count = left;
    }
    for (uint32_t i = count / 2; i > 0; i--) {
        bulk_sift(work->keys, count, i - 1);
    }
    return count;
}

/* Choosing */

/* Whether a chosen one is nearer to the candidate, even by the factor, than the owner is. */
static int bulk_is_covered(const struct bulk *bulk, const struct bulk_work *work, uint32_t chosen,
                           uint64_t key, uint32_t candidate, float factor)
{
    float distances[BULK_GROUP];

    for (uint32_t i = 0; i < chosen; i += BULK_GROUP) {
        const uint32_t group = chosen - i < BULK_GROUP ? chosen - i : BULK_GROUP;
        bulk_distances(bulk, candidate, work->chosen + i, work->chosen_vectors + i, group,
                       distances);
        for (uint32_t j = 0; j < group; j++) {
            if (graph_key(distances[j] * factor, work->chosen[i + j] ^ candidate) < key) {
                return 1;
            }
        }
    }
    return 0;
}

static uint32_t bulk_take(const struct bulk *bulk, struct bulk_work *work, uint32_t chosen,
                          uint32_t candidate)
{
    work->chosen[chosen] = candidate;
    work->chosen_vectors[chosen] = bulk_vector(bulk, candidate);
    return chosen + 1;
}

/* Chooses at most bulk->places of the nearest `pool` of the heap of `count` keys and writes them to
 * the member's list. Rejected keys gather behind the shrinking heap, the first one last. At most
 * half of the pool may be at one distance. */
static void bulk_choose(const struct bulk *bulk, struct bulk_work *work, uint32_t member,
                        uint32_t count, uint32_t pool)
{
    uint64_t *keys = work->keys, last = 0;
    uint32_t *list = bulk_list(bulk, member);
    uint32_t chosen = 0, ties = 0, left = count, rejected = count;
    const uint32_t near_limit =
        bulk->places - (work->far_count != 0 ? bulk->places / BULK_FAR_SHARE : 0);

    for (uint32_t seen = 0; seen < pool && left > 0 && chosen < bulk->places;) {
        const uint64_t key = keys[0];
        const uint32_t candidate = graph_key_row(key, member);
        keys[0] = keys[--left];
        bulk_sift(keys, left, 0);
        ties = key >> 32 == last >> 32 ? ties + 1 : 0;
        last = key;
        if (2 * ties >= pool) {
            continue;
        }
        seen++;
        if (chosen < near_limit && !bulk_is_covered(bulk, work, chosen, key, candidate, 1)) {
            chosen = bulk_take(bulk, work, chosen, candidate);
        } else {
            keys[--rejected] = key;
        }
    }
    for (uint32_t i = 0; i < work->far_count && chosen < bulk->places; i++) {
        const uint64_t key = work->far_keys[i];
        const uint32_t candidate = graph_key_row(key, member);
        if (!bulk_is_covered(bulk, work, chosen, key, candidate, 1)) {
            chosen = bulk_take(bulk, work, chosen, candidate);
        }
    }
    while (rejected < count && chosen < bulk->places) {
        const uint64_t key = keys[--count];
        const uint32_t candidate = graph_key_row(key, member);
        if (!bulk_is_covered(bulk, work, chosen, key, candidate, BULK_ALPHA_SQUARE)) {
            chosen = bulk_take(bulk, work, chosen, candidate);
        }
    }
    for (uint32_t i = 0; i < bulk->places; i++) {
        graph_slot_store(&list[i], i < chosen ? work->chosen[i] : member);
    }
}

/* Refining */

static void bulk_refine_member(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    struct bulk_parts parts;
    uint32_t count;

    bulk_find_begin(work, member);
    bulk_find_list(bulk, work, member);
    parts.own = work->found_count;
    parts.far = bulk->is_finished ? 0 : parts.own;
    bulk_find_above(bulk, work, member);
    parts.kept = work->found_count;
    for (uint32_t i = 0; i < parts.own && i < BULK_EXPAND; i++) {
        prefetch_bytes(bulk_list(bulk, work->found[i]), bulk->places * sizeof(uint32_t));
    }
    for (uint32_t i = 0; i < parts.own && i < BULK_EXPAND; i++) {
        bulk_find_list(bulk, work, work->found[i]);
    }
    count = bulk_measure(bulk, work, member, parts);
    bulk_choose(bulk, work, member, count, BULK_POOL);
}

/* In a level that is one leaf every other member is a candidate. */
static void bulk_meet_all(const struct bulk *bulk, struct bulk_work *work, uint32_t member)
{
    bulk_find_begin(work, member);
    for (uint32_t other = 0; other < bulk->count; other++) {
        bulk_find(bulk, work, other);
    }
    bulk_choose(bulk, work, member, bulk_measure(bulk, work, member, (struct bulk_parts){0}),
                2 * bulk->count);
}

static int bulk_refine_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const uint32_t last = bulk_step_end(bulk, index);

    for (uint32_t i = index * BULK_GRAIN; i < last; i++) {
        const uint32_t member = bulk->order != NULL ? bulk->order[i] : i;
        if (bulk->count <= BULK_LEAF) {
            bulk_meet_all(bulk, work, member);
        } else {
            bulk_refine_member(bulk, work, member);
        }
    }
    return OMENDB_OK;
}

/* Accepting: offers of one step are counted first and then written, each member's side by side. */

static int bulk_has(const struct bulk *bulk, uint32_t of, uint32_t member)
{
    const uint32_t *list = bulk_list(bulk, of);

    for (uint32_t i = 0; i < bulk->places && list[i] != of; i++) {
        if (list[i] == member) {
            return 1;
        }
    }
    return 0;
}

static void bulk_offer_member(const struct bulk *bulk, uint32_t member)
{
    const uint32_t *list = bulk_list(bulk, member);

    for (uint32_t i = 0; i < bulk->places && list[i] != member; i++) {
        const uint32_t to = list[i];
        uint32_t place;
        if (bulk_has(bulk, to, member)) {
            continue;
        }
        place = atomic_fetch_add_explicit(&bulk->offer_counts[to], 1, memory_order_relaxed);
        if (bulk->offers != NULL && place < BULK_OFFERS) {
            bulk->offers[bulk->offer_starts[to] + place] = member;
        }
    }
}

static int bulk_offer_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const uint32_t last = bulk_step_end(bulk, index);

    (void)work;
    for (uint32_t i = index * BULK_GRAIN; i < last; i++) {
        const uint32_t member = bulk->order != NULL ? bulk->order[i] : i;
        if (i + 1 < last) {
            const uint32_t next = bulk->order != NULL ? bulk->order[i + 1] : i + 1;
            const uint32_t *list = bulk_list(bulk, next);
            for (uint32_t j = 0; j < bulk->places && list[j] != next; j++) {
                prefetch_bytes(bulk_list(bulk, list[j]), bulk->places * sizeof *list);
            }
        }
        bulk_offer_member(bulk, member);
    }
    return OMENDB_OK;
}

static int bulk_accept_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const uint32_t last = bulk_step_end(bulk, index);

    for (uint32_t i = index * BULK_GRAIN; i < last; i++) {
        const uint32_t member = bulk->order != NULL ? bulk->order[i] : i;
        const size_t first = bulk->offer_starts[member], end = bulk->offer_starts[member + 1];
        struct bulk_parts parts;
        if (first == end) {
            continue;
        }
        bulk_find_begin(work, member);
        bulk_find_list(bulk, work, member);
        parts = (struct bulk_parts){.kept = work->found_count};
        for (size_t at = first; at < end; at++) {
            bulk_find(bulk, work, bulk->offers[at]);
        }
        bulk_choose(bulk, work, member, bulk_measure(bulk, work, member, parts),
                    2 * work->found_count);
    }
    return OMENDB_OK;
}

/* Where the offers to each member begin; counts start again. */
static size_t bulk_start_offers(struct bulk *bulk)
{
    size_t total = 0;

    for (uint32_t member = 0; member < bulk->count; member++) {
        const uint32_t count =
            atomic_load_explicit(&bulk->offer_counts[member], memory_order_relaxed);
        bulk->offer_starts[member] = total;
        total += count < BULK_OFFERS ? count : BULK_OFFERS;
        atomic_store_explicit(&bulk->offer_counts[member], 0, memory_order_relaxed);
    }
    bulk->offer_starts[bulk->count] = total;
    return total;
}

static int bulk_accept(struct bulk *bulk)
{
    const uint32_t steps = bulk_steps(bulk->count);
    const size_t count = bulk->count;
    size_t total = 0;
    int code = OMENDB_NOMEM;

    bulk->offer_counts = bulk_array(bulk, count, sizeof *bulk->offer_counts);
    bulk->offer_starts = bulk_array(bulk, count + 1, sizeof *bulk->offer_starts);
    if (bulk->offer_counts != NULL && bulk->offer_starts != NULL) {
        code = bulk_run(bulk, steps, bulk->count, bulk_offer_step);
    }
    if (code == OMENDB_OK) {
        total = bulk_start_offers(bulk);
        bulk->offers = bulk_array(bulk, total, sizeof *bulk->offers);
        code = bulk->offers != NULL ? bulk_run(bulk, steps, bulk->count, bulk_offer_step)
                                    : OMENDB_NOMEM;
    }
    if (code == OMENDB_OK) {
        code = bulk_run(bulk, steps, bulk->count, bulk_accept_step);
    }
    bulk_array_free(bulk, bulk->offers, total, sizeof *bulk->offers);
    bulk_array_free(bulk, bulk->offer_starts, count + 1, sizeof *bulk->offer_starts);
    bulk_array_free(bulk, bulk->offer_counts, count, sizeof *bulk->offer_counts);
    bulk->offers = NULL;
    bulk->offer_starts = NULL;
    bulk->offer_counts = NULL;
    return code;
}

/* The base */

static int bulk_find_nearest(struct bulk *bulk)
{
    const size_t entries = bulk->entry_count;
    int code;

    bulk->ranks = bulk_array(bulk, memory_multiply(bulk->count, bulk->places), sizeof *bulk->ranks);
    bulk->uppers = bulk_array(bulk, bulk->count, sizeof *bulk->uppers);
    bulk->upper_ranks = bulk_array(bulk, bulk->count, sizeof *bulk->upper_ranks);
    bulk->choices = bulk_array(bulk, entries, sizeof *bulk->choices);
    bulk->entries = bulk_array(bulk, entries, sizeof *bulk->entries);
    bulk->sorted = bulk_array(bulk, entries, sizeof *bulk->sorted);
    code = bulk->ranks != NULL && bulk->uppers != NULL && bulk->upper_ranks != NULL &&
                   bulk->choices != NULL && bulk->entries != NULL && bulk->sorted != NULL
               ? OMENDB_OK
               : OMENDB_NOMEM;
    for (uint32_t i = 0; i < bulk->count && code == OMENDB_OK; i++) {
        bulk->uppers[i] = GRAPH_NO_ROW;
    }
    for (uint32_t i = 0; i < BULK_REPLICAS && code == OMENDB_OK; i++) {
        code = bulk_split(bulk);
        if (code == OMENDB_OK) {
            code = bulk_run(bulk, bulk->cell_count, bulk->count, bulk_leaf_step);
        }
    }
    bulk_array_free(bulk, bulk->ranks, (size_t)bulk->count * bulk->places, sizeof *bulk->ranks);
    bulk_array_free(bulk, bulk->upper_ranks, bulk->count, sizeof *bulk->upper_ranks);
    bulk_array_free(bulk, bulk->choices, entries, sizeof *bulk->choices);
    bulk_array_free(bulk, bulk->sorted, entries, sizeof *bulk->sorted);
    bulk->ranks = bulk->upper_ranks = NULL;
    bulk->choices = NULL;
    bulk->sorted = NULL;
    return code;
}

/* Each member once, in the order of the leaves of the last splitting. The cells and entries are not
 * needed any more. */
static int bulk_make_order(struct bulk *bulk)
{
    const size_t words = (size_t)bulk->count / 64 + 1;
    uint64_t *seen = memory_zalloc(bulk->memory, words * sizeof *seen);
    uint32_t count = 0;

    bulk->order = bulk_array(bulk, bulk->count, sizeof *bulk->order);
    if (seen != NULL && bulk->order != NULL) {
        for (uint32_t i = 0; i < bulk->entry_count; i++) {
            const uint32_t member = bulk->entries[i];
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

static int bulk_make_nearest(struct bulk *bulk)
{
    int code;

    if (bulk->count > UINT32_MAX / BULK_FAN) {
        return error_set(OMENDB_NOMEM, "%u rows are too many to be linked at once", bulk->count);
    }
    bulk->entry_count = bulk->count * BULK_FAN;
    code = bulk_find_nearest(bulk);
    if (code == OMENDB_OK) {
        code = bulk_make_order(bulk);
    }
    bulk_replace_cells(bulk, NULL, 0, 0);
    bulk_array_free(bulk, bulk->entries, bulk->entry_count, sizeof *bulk->entries);
    bulk->entries = NULL;
    return code;
}

/* Choosing all base lists: those of one leaf among all rows. */
static int bulk_make_base(struct bulk *bulk)
{
    const uint32_t count = bulk->count;
    int code = count > BULK_LEAF ? bulk_make_nearest(bulk) : OMENDB_OK;

    if (code == OMENDB_OK) {
        code = bulk_run(bulk, bulk_steps(count), count, bulk_refine_step);
    }
    if (code == OMENDB_OK) {
        code = bulk_accept(bulk);
    }
    bulk_array_free(bulk, bulk->uppers, count, sizeof *bulk->uppers);
    bulk_array_free(bulk, bulk->order, count, sizeof *bulk->order);
    bulk->uppers = bulk->order = NULL;
    return code;
}

/* Upper levels: rows that have one are inserted one by one, into a graph of nothing but them. */

static int bulk_insert_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const uint32_t last = bulk_step_end(bulk, index);
    int code = OMENDB_OK;

    if (work->scratch == NULL) {
        work->scratch = graph_scratch_create(bulk->memory);
    }
    if (work->scratch == NULL) {
        return OMENDB_NOMEM;
    }
    for (uint32_t row = index * BULK_GRAIN; row < last && code == OMENDB_OK; row++) {
        if (bulk_is_upper(bulk, row)) {
            code = graph_insert(bulk->graph, work->scratch, row);
        }
    }
    return code;
}

/* The base lists that they got are not needed. */
static int bulk_clear_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const uint32_t last = bulk_step_end(bulk, index);

    (void)work;
    for (uint32_t row = index * BULK_GRAIN; row < last; row++) {
        uint32_t *list = bulk_list(bulk, row);
        for (uint32_t i = 0; i < bulk->places && bulk_is_upper(bulk, row); i++) {
            list[i] = row;
        }
    }
    return OMENDB_OK;
}

static int bulk_make_graph(struct bulk *bulk)
{
    const uint32_t steps = bulk_steps(bulk->count);
    int code = bulk_run(bulk, steps, bulk->count, bulk_insert_step);

    if (code == OMENDB_OK) {
        code = bulk_run(bulk, steps, 0, bulk_clear_step);
    }
    if (code == OMENDB_OK) {
        code = bulk_make_base(bulk);
    }
    if (code == OMENDB_OK) {
        (void)graph_offer_entry(bulk->graph, 0, 0); /* unless an insertion did */
    }
    return code;
}

/* The whole */

/* Blocks of a file are verified before anything is read from them. */
static int bulk_verify_step(struct bulk *bulk, struct bulk_work *work, uint32_t index)
{
    const uint32_t last = bulk_step_end(bulk, index);
    int code = OMENDB_OK;

    (void)work;
    for (uint32_t row = index * BULK_GRAIN; row < last && code == OMENDB_OK; row++) {
        code = graph_view_touch_vector(&bulk->view, row);
    }
    return code;
}

static int bulk_is_product(const struct kernel *kernel)
{
    int found = 0;

    for (int scalar = 0; scalar < KERNEL_SCALARS; scalar++) {
        found |= kernels_for((omendb_scalar)scalar, OMENDB_INNER_PRODUCT) == kernel;
    }
    return found;
}

static void bulk_free_heights(struct bulk *bulk)
{
    bulk_array_free(bulk, bulk->heights, bulk->view.count, sizeof *bulk->heights);
    bulk->heights = NULL;
}

/* Without heights, as where a norm is infinite, inner products are used as they are. */
static int bulk_make_heights(struct bulk *bulk)
{
    float *heights;

    if (!bulk_is_product(bulk->view.kernel)) {
        return OMENDB_OK;
    }
    heights = bulk_array(bulk, bulk->view.count, sizeof *heights);
    if (heights == NULL) {
        return OMENDB_NOMEM;
    }
    for (uint32_t row = 0; row < bulk->view.count; row++) {
        const void *vector = rows_at(&bulk->view.vectors, row);
        heights[row] = -bulk->view.kernel->pair(vector, vector, bulk->view.dim);
        bulk->radius = heights[row] > bulk->radius ? heights[row] : bulk->radius;
    }
    for (uint32_t row = 0; row < bulk->view.count; row++) {
        heights[row] = sqrtf(bulk->radius - heights[row]);
    }
    bulk->heights = heights;
    if (!(bulk->radius < INFINITY)) {
        bulk_free_heights(bulk);
    }
    return OMENDB_OK;
}

static int bulk_begin(struct bulk *bulk, struct graph *graph, const struct graph_bulk_terms *terms)
{
    const uint32_t places = graph->links_per_row;

    memset(bulk, 0, sizeof *bulk);
    bulk->graph = graph;
    bulk->memory = graph->memory;
    bulk->terms = terms;
    graph_get_view(graph, &bulk->view);
    bulk->count = bulk->view.count;
    bulk->places = places;
    bulk->random = graph->config.seed;
    bulk->room = (BULK_EXPAND + 1) * places + bulk->view.M + 1;
    bulk->room = bulk->room < places + BULK_OFFERS ? places + BULK_OFFERS : bulk->room;
    bulk->room = bulk->room < BULK_LEAF ? BULK_LEAF : bulk->room;
    return platform_mutex_init(&bulk->mutex);
}

static int bulk_read_vectors(struct bulk *bulk)
{
    int code = OMENDB_OK;

    if (graph_view_verifies(&bulk->view)) {
        code = bulk_run(bulk, bulk_steps(bulk->count), 0, bulk_verify_step);
    }
    return code == OMENDB_OK ? bulk_make_heights(bulk) : code;
}

static int bulk_end(struct bulk *bulk, int code)
{
    struct graph_scratch *scratch = NULL;

    bulk_free_works(bulk);
    bulk_free_heights(bulk);
    platform_mutex_destroy(&bulk->mutex);
    if (code == OMENDB_OK) {
        scratch = graph_scratch_create(bulk->memory);
        code =
            scratch == NULL ? OMENDB_NOMEM : graph_repair(bulk->graph, scratch, bulk->view.count);
    }
    graph_scratch_destroy(scratch);
    return code;
}

OMENDB_INTERNAL int graph_bulk(struct graph *graph, const struct graph_bulk_terms *terms)
{
    struct bulk bulk;
    int code = bulk_begin(&bulk, graph, terms);

    if (code != OMENDB_OK) {
        return code;
    }
    assert(bulk.view.entry_row == GRAPH_NO_ROW);
    bulk.total = (uint64_t)bulk.count * (bulk.count > BULK_LEAF ? 5 + 2 * BULK_REPLICAS : 5);
    if (bulk.count != 0) {
        code = bulk_read_vectors(&bulk);
        if (code == OMENDB_OK) {
            code = bulk_make_graph(&bulk);
        }
    }
    return bulk_end(&bulk, code);
}

OMENDB_INTERNAL int graph_refine(struct graph *graph, const struct graph_bulk_terms *terms)
{
    struct bulk bulk;
    int code = bulk_begin(&bulk, graph, terms);

    if (code != OMENDB_OK) {
        return code;
    }
    bulk.total = (uint64_t)bulk.count * 4;
    bulk.is_finished = 1;
    code = bulk_read_vectors(&bulk);
    if (code == OMENDB_OK) {
        code = bulk_run(&bulk, bulk_steps(bulk.count), bulk.count, bulk_refine_step);
    }
    if (code == OMENDB_OK && bulk.count != 0) {
        code = bulk_accept(&bulk);
    }
    return bulk_end(&bulk, code);
}

#undef BULK_LEAF
#undef BULK_CELL
#undef BULK_LEADERS
#undef BULK_FAN
#undef BULK_REPLICAS
#undef BULK_ROUNDS
#undef BULK_EXPAND
#undef BULK_POOL
#undef BULK_FAR_SHARE
#undef BULK_OFFERS
#undef BULK_ALPHA
#undef BULK_ALPHA_SQUARE
#undef BULK_GRAIN
#undef BULK_SLICE
#undef BULK_TILE
#undef BULK_TILE_BYTES
#undef BULK_GROUP
#undef BULK_MASK_GROUP
#undef BULK_GOLDEN

/* ==============================================================================================
 * idmap.c
 * ============================================================================================== */

/* idmap.c: see idmap.h. Hash: the finaliser of MurmurHash3 as tuned by Stafford (mix 13), which is
 * public domain knowledge and enough here: ids are not secret and a table of row numbers degrades
 * to a longer probe, never to a wrong answer. */

/* ==============================================================================================
 * idmap.h
 * ============================================================================================== */

/* idmap.h: from the id of a record to its row.
 *
 * In a memtable: an open-addressing table of row numbers, grown by replacement; a reader that holds
 * an older table misses only rows whose commit it cannot see yet. An id that was replaced keeps its
 * older rows through `previous`. In a segment: ids ascending (the row order itself, or a sorted
 * copy with its rows), and a blocked Bloom filter of 10 bits a row that answers most questions
 * about absent ids with one cache line.
 *
 * Filter: blocks of 64 bytes, count = max(1, rows * 10 / 512 rounded up). Of h = mix(id): block (h
 * >> 32) * count >> 32; six bits of 9 bits each taken from mix(h). */
#ifndef OMENDB_IDMAP_H
#define OMENDB_IDMAP_H

#define IDMAP_FILTER_BLOCK 64

struct idmap_table {
    uint32_t mask; /* slots - 1 */
    struct idmap_table *older;
    _Atomic uint32_t slot[]; /* row + 1; 0: empty */
};

struct idmap {
    struct memory *memory;
    _Atomic(struct idmap_table *) table;
    uint32_t used;
    const struct rows_store *ids; /* of the memtable's rows */
};

OMENDB_INTERNAL void idmap_init(struct idmap *map, struct memory *memory,
                                const struct rows_store *ids);
OMENDB_INTERNAL void idmap_destroy(struct idmap *map);
/* After it `more` insertions cannot fail. */
OMENDB_INTERNAL int idmap_reserve(struct idmap *map, uint32_t more);
/* Makes `row` the newest of `id`; returns the row that was, or GRAPH_NO_ROW. */
OMENDB_INTERNAL uint32_t idmap_insert(struct idmap *map, uint64_t id, uint32_t row);
/* The newest row of `id`, or GRAPH_NO_ROW. */
OMENDB_INTERNAL uint32_t idmap_find(const struct idmap *map, uint64_t id);

OMENDB_INTERNAL uint64_t idmap_mix(uint64_t value);

OMENDB_INTERNAL size_t idmap_filter_bytes(uint32_t rows);
OMENDB_INTERNAL void idmap_filter_add(uint8_t *filter, size_t bytes, uint64_t id);
/* Offset of the 64-byte block that answers for `id`, and the answer given that block. */
OMENDB_INTERNAL size_t idmap_filter_offset(size_t bytes, uint64_t id);
OMENDB_INTERNAL int idmap_filter_has(const uint8_t *block, uint64_t id);

#endif

/* idmap.c, continued */

OMENDB_INTERNAL uint64_t idmap_mix(uint64_t value)
{
    value ^= value >> 30;
    value *= UINT64_C(0xbf58476d1ce4e5b9);
    value ^= value >> 27;
    value *= UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

static size_t idmap_table_bytes(uint32_t slots)
{
    return sizeof(struct idmap_table) + slots * sizeof(_Atomic uint32_t);
}

OMENDB_INTERNAL void idmap_init(struct idmap *map, struct memory *memory,
                                const struct rows_store *ids)
{
    memset(map, 0, sizeof *map);
    map->memory = memory;
    map->ids = ids;
}

OMENDB_INTERNAL void idmap_destroy(struct idmap *map)
{
    struct idmap_table *table = atomic_load_explicit(&map->table, memory_order_relaxed);
    while (table != NULL) {
        struct idmap_table *older = table->older;
        memory_free(map->memory, table, idmap_table_bytes(table->mask + 1));
        table = older;
    }
    atomic_store_explicit(&map->table, NULL, memory_order_relaxed);
}

static uint64_t idmap_row_id(const struct rows_view *ids, uint32_t row)
{
    uint64_t id;
    memcpy(&id, rows_at(ids, row), sizeof id);
    return id;
}

/* Slot that holds `id`, or the empty one where it belongs. The table is never full. */
static uint32_t idmap_probe(const struct idmap_table *table, const struct rows_view *ids,
                            uint64_t id, uint32_t *row)
{
    uint32_t at = (uint32_t)idmap_mix(id) & table->mask;
    for (;; at = (at + 1) & table->mask) {
        uint32_t value = atomic_load_explicit(&table->slot[at], memory_order_acquire);
        *row = value - 1;
        if (value == 0 || idmap_row_id(ids, value - 1) == id)
            return at;
    }
}

OMENDB_INTERNAL int idmap_reserve(struct idmap *map, uint32_t more)
{
    struct idmap_table *old = atomic_load_explicit(&map->table, memory_order_relaxed);
    uint64_t needed = (uint64_t)map->used + more;
    if (old != NULL && needed * 3 <= ((uint64_t)old->mask + 1) * 2)
        return OMENDB_OK;
    uint64_t slots = old == NULL ? 64 : (uint64_t)old->mask + 1;
    while (needed * 2 > slots)
        slots *= 2;
    if (slots > UINT32_C(1) << 31)
        return error_set(OMENDB_TOOBIG, "a memtable of %llu ids; at most 2^30: make a checkpoint",
                         (unsigned long long)needed);
    struct idmap_table *table = memory_zalloc(map->memory, idmap_table_bytes((uint32_t)slots));
    if (table == NULL)
        return OMENDB_NOMEM;
    table->mask = (uint32_t)(slots - 1);
    table->older = old;
    struct rows_view ids = rows_store_view(map->ids);
    for (uint64_t i = 0; old != NULL && i <= old->mask; i++) {
        uint32_t row, value = atomic_load_explicit(&old->slot[i], memory_order_relaxed);
        if (value == 0)
            continue;
        uint32_t at = idmap_probe(table, &ids, idmap_row_id(&ids, value - 1), &row);
        atomic_store_explicit(&table->slot[at], value, memory_order_relaxed);
    }
    atomic_store_explicit(&map->table, table, memory_order_release);
    return OMENDB_OK;
}

OMENDB_INTERNAL uint32_t idmap_insert(struct idmap *map, uint64_t id, uint32_t row)
{
    struct idmap_table *table = atomic_load_explicit(&map->table, memory_order_relaxed);
    struct rows_view ids = rows_store_view(map->ids);
    uint32_t previous, at = idmap_probe(table, &ids, id, &previous);
    if (previous == GRAPH_NO_ROW)
        map->used++;
    atomic_store_explicit(&table->slot[at], row + 1, memory_order_release);
    return previous;
}

OMENDB_INTERNAL uint32_t idmap_find(const struct idmap *map, uint64_t id)
{
    const struct idmap_table *table = atomic_load_explicit(&map->table, memory_order_acquire);
    if (table == NULL)
        return GRAPH_NO_ROW;
    uint32_t at = (uint32_t)idmap_mix(id) & table->mask;
    for (;; at = (at + 1) & table->mask) {
        uint32_t value = atomic_load_explicit(&table->slot[at], memory_order_acquire);
        if (value == 0)
            return GRAPH_NO_ROW;
        /* Taken after the slot: the directory that it loads covers the row. */
        struct rows_view ids = rows_store_view(map->ids);
        if (idmap_row_id(&ids, value - 1) == id)
            return value - 1;
    }
}

OMENDB_INTERNAL size_t idmap_filter_bytes(uint32_t rows)
{
    return ((size_t)rows * 10 + 511) / 512 * IDMAP_FILTER_BLOCK +
           (rows == 0 ? IDMAP_FILTER_BLOCK : 0);
}

OMENDB_INTERNAL size_t idmap_filter_offset(size_t bytes, uint64_t id)
{
    uint64_t blocks = bytes / IDMAP_FILTER_BLOCK;
    return (size_t)(((idmap_mix(id) >> 32) * blocks) >> 32) * IDMAP_FILTER_BLOCK;
}

/* The six bits of `id` in its block, one at a time. */
static uint32_t idmap_filter_bit(uint64_t bits, int index)
{
    return (uint32_t)(bits >> (9 * index)) & 511;
}

OMENDB_INTERNAL void idmap_filter_add(uint8_t *filter, size_t bytes, uint64_t id)
{
    uint8_t *block = filter + idmap_filter_offset(bytes, id);
    uint64_t bits = idmap_mix(idmap_mix(id));
    for (int i = 0; i < 6; i++) {
        uint32_t bit = idmap_filter_bit(bits, i);
        block[bit >> 3] = (uint8_t)(block[bit >> 3] | (1u << (bit & 7)));
    }
}

OMENDB_INTERNAL int idmap_filter_has(const uint8_t *block, uint64_t id)
{
    uint64_t bits = idmap_mix(idmap_mix(id));
    for (int i = 0; i < 6; i++) {
        uint32_t bit = idmap_filter_bit(bits, i);
        if (((block[bit >> 3] >> (bit & 7)) & 1) == 0)
            return 0;
    }
    return 1;
}

/* ==============================================================================================
 * tombstones.c
 * ============================================================================================== */

/* tombstones.c: see tombstones.h.
 *
 * Rejected: a bitmap beside a hash of commits. It is smaller when few rows of a page are dead, but
 * asks two questions for each dead row in the walk, and growing a hash under readers needs the same
 * care as the directory here. */

/* ==============================================================================================
 * tombstones.h
 * ============================================================================================== */

/* tombstones.h: for each row of a memtable or segment the commit that ended it (deleted or replaced
 * it), or 0.
 *
 * Sealing a memtable keeps the numbers of its rows, so the segment takes over the very same object
 * and no delete is lost on the way. Pages of 512 rows come into being at the first delete among
 * them; a walker pays one load for rows of pages without any.
 *
 * Guarded: prepare, set and grow by the commit mutex; get by nothing (acquire loads). */
#ifndef OMENDB_TOMBSTONES_H
#define OMENDB_TOMBSTONES_H

#define TOMBSTONE_PAGE_SHIFT 9
#define TOMBSTONE_PAGE_ROWS  (UINT32_C(1) << TOMBSTONE_PAGE_SHIFT)

struct tombstone_page {
    _Atomic uint64_t end[TOMBSTONE_PAGE_ROWS];
};

struct tombstone_directory {
    uint32_t pages;
    struct tombstone_directory *older; /* kept until the end: a reader may hold it */
    _Atomic(struct tombstone_page *) page[];
};

struct tombstones {
    _Atomic uint32_t references;
    struct memory *memory;
    _Atomic(struct tombstone_directory *) directory;
    _Atomic uint32_t dead;   /* rows that have ended */
    _Atomic uint64_t newest; /* largest end */
};

OMENDB_INTERNAL struct tombstones *tombstones_create(struct memory *memory);
OMENDB_INTERNAL struct tombstones *tombstones_reference(struct tombstones *tombstones);
OMENDB_INTERNAL void tombstones_release(struct tombstones *tombstones); /* NULL is OK */

/* After it tombstones_set of this row cannot fail. */
OMENDB_INTERNAL int tombstones_prepare(struct tombstones *tombstones, uint32_t row);
OMENDB_INTERNAL void tombstones_set(struct tombstones *tombstones, uint32_t row, uint64_t commit);

/* Calls `each` for every ended row below `rows`, ascending; stops at its first non-zero answer and
 * returns it. */
OMENDB_INTERNAL int tombstones_each(const struct tombstones *tombstones, uint32_t rows,
                                    int (*each)(void *context, uint32_t row, uint64_t end),
                                    void *context);

/* The commit that ended the row, 0: none. */
static inline uint64_t tombstones_get(const struct tombstones *tombstones, uint32_t row)
{
    struct tombstone_directory *directory =
        atomic_load_explicit(&tombstones->directory, memory_order_acquire);
    uint32_t number = row >> TOMBSTONE_PAGE_SHIFT;
    if (directory == NULL || number >= directory->pages)
        return 0;
    struct tombstone_page *page =
        atomic_load_explicit(&directory->page[number], memory_order_acquire);
    if (page == NULL)
        return 0;
    return atomic_load_explicit(&page->end[row & (TOMBSTONE_PAGE_ROWS - 1)], memory_order_acquire);
}

#endif

/* tombstones.c, continued */

static size_t tombstones_directory_bytes(uint32_t pages)
{
    return sizeof(struct tombstone_directory) + pages * sizeof(_Atomic(struct tombstone_page *));
}

OMENDB_INTERNAL struct tombstones *tombstones_create(struct memory *memory)
{
    struct tombstones *tombstones = memory_zalloc(memory, sizeof *tombstones);
    if (tombstones == NULL)
        return NULL;
    tombstones->memory = memory;
    atomic_init(&tombstones->references, 1);
    return tombstones;
}

OMENDB_INTERNAL struct tombstones *tombstones_reference(struct tombstones *tombstones)
{
    atomic_fetch_add_explicit(&tombstones->references, 1, memory_order_relaxed);
    return tombstones;
}

OMENDB_INTERNAL void tombstones_release(struct tombstones *tombstones)
{
    if (tombstones == NULL ||
        atomic_fetch_sub_explicit(&tombstones->references, 1, memory_order_acq_rel) != 1)
        return;
    struct memory *memory = tombstones->memory;
    struct tombstone_directory *directory =
        atomic_load_explicit(&tombstones->directory, memory_order_relaxed);
    for (uint32_t i = 0; directory != NULL && i < directory->pages; i++)
        memory_free(memory, atomic_load_explicit(&directory->page[i], memory_order_relaxed),
                    sizeof(struct tombstone_page));
    while (directory != NULL) {
        struct tombstone_directory *older = directory->older;
        memory_free(memory, directory, tombstones_directory_bytes(directory->pages));
        directory = older;
    }
    memory_free(memory, tombstones, sizeof *tombstones);
}

static struct tombstone_directory *tombstones_grow(struct tombstones *tombstones,
                                                   uint32_t pages_needed)
{
    struct tombstone_directory *old =
        atomic_load_explicit(&tombstones->directory, memory_order_relaxed);
    uint32_t pages = old == NULL ? 4 : old->pages;
    while (pages < pages_needed)
        pages *= 2;
    struct tombstone_directory *directory =
        memory_zalloc(tombstones->memory, tombstones_directory_bytes(pages));
    if (directory == NULL)
        return NULL;
    directory->pages = pages;
    directory->older = old;
    for (uint32_t i = 0; old != NULL && i < old->pages; i++)
        atomic_init(&directory->page[i], atomic_load_explicit(&old->page[i], memory_order_relaxed));
    atomic_store_explicit(&tombstones->directory, directory, memory_order_release);
    return directory;
}

OMENDB_INTERNAL int tombstones_prepare(struct tombstones *tombstones, uint32_t row)
{
    uint32_t number = row >> TOMBSTONE_PAGE_SHIFT;
    struct tombstone_directory *directory =
        atomic_load_explicit(&tombstones->directory, memory_order_relaxed);
    if (directory == NULL || number >= directory->pages) {
        directory = tombstones_grow(tombstones, number + 1);
        if (directory == NULL)
            return OMENDB_NOMEM;
    }
    if (atomic_load_explicit(&directory->page[number], memory_order_relaxed) != NULL)
        return OMENDB_OK;
    struct tombstone_page *page = memory_zalloc(tombstones->memory, sizeof *page);
    if (page == NULL)
        return OMENDB_NOMEM;
    atomic_store_explicit(&directory->page[number], page, memory_order_release);
    return OMENDB_OK;
}

OMENDB_INTERNAL void tombstones_set(struct tombstones *tombstones, uint32_t row, uint64_t commit)
{
    struct tombstone_directory *directory =
        atomic_load_explicit(&tombstones->directory, memory_order_relaxed);
    struct tombstone_page *page =
        atomic_load_explicit(&directory->page[row >> TOMBSTONE_PAGE_SHIFT], memory_order_relaxed);
    atomic_store_explicit(&page->end[row & (TOMBSTONE_PAGE_ROWS - 1)], commit,
                          memory_order_release);
    atomic_fetch_add_explicit(&tombstones->dead, 1, memory_order_release);
    if (commit > atomic_load_explicit(&tombstones->newest, memory_order_relaxed))
        atomic_store_explicit(&tombstones->newest, commit, memory_order_release);
}

OMENDB_INTERNAL int tombstones_each(const struct tombstones *tombstones, uint32_t rows,
                                    int (*each)(void *context, uint32_t row, uint64_t end),
                                    void *context)
{
    struct tombstone_directory *directory =
        atomic_load_explicit(&tombstones->directory, memory_order_acquire);
    for (uint32_t number = 0; directory != NULL && number < directory->pages; number++) {
        struct tombstone_page *page =
            atomic_load_explicit(&directory->page[number], memory_order_acquire);
        for (uint32_t i = 0; page != NULL && i < TOMBSTONE_PAGE_ROWS; i++) {
            uint32_t row = (number << TOMBSTONE_PAGE_SHIFT) + i;
            uint64_t end = atomic_load_explicit(&page->end[i], memory_order_acquire);
            if (end == 0 || row >= rows)
                continue;
            int answer = each(context, row, end);
            if (answer != 0)
                return answer;
        }
    }
    return 0;
}

/* ==============================================================================================
 * calibration.c
 * ============================================================================================== */

/* calibration.c: curves of recall by effort: made from samples, asked, stored. calibrate.c
 * measures.
 *
 * The bound. The recalls of n queries have a mean m and a variance v; the mean over all queries
 * like them is above m - 1.645 * sqrt(v / n) with a probability of 95 %. A sample in which
 * everything was found has a variance of 0, which would promise too much: one more missed neighbour
 * is added to it. Bounds are then made to ascend with the effort, as recall does.
 *
 * Between two entries the effort is taken on a straight line in log(ef). Recall is concave there,
 * so that the line lies below the curve, and what is promised is kept.
 *
 * A recall above the last entry's bound gets the last entry's effort, which is the most that was
 * measured, and a warning. Extrapolation was rejected: a curve's end is where some queries are out
 * of a walk's reach, and no effort can be named for them.
 *
 * Nothing read from a file is trusted: a curve that is not one is none. */

/* ==============================================================================================
 * calibration.h
 * ============================================================================================== */

/* calibration.h: the curve of recall by effort, of a segment or of a collection.
 *
 * A curve is a list of efforts that were tried on a sample of queries which the graph did not hold,
 * each with the mean recall of the sample and a bound below which the mean of all such queries lies
 * with a probability of 5 %. Entries are grouped by k, ascending; within a group effort and bound
 * ascend. A wanted recall is looked up by the bound, never by the mean.
 *
 * The effort is `ef` and the stretch of a walk's adaptive stop (0: it stops by ef alone). */
#ifndef OMENDB_CALIBRATION_H
#define OMENDB_CALIBRATION_H

#define CALIBRATION_MAX_ENTRIES 32
#define CALIBRATION_LARGEST_K   100 /* of the ladder */
#define CALIBRATION_LARGEST_EF  100000

struct calibration_entry {
    uint32_t k;
    uint32_t ef;
    float stretch;
    float mean;
    float low; /* the lower 95 % bound */
};

struct calibration {
    uint32_t rows;     /* of the graph when it was measured */
    uint32_t queries;  /* in the largest sample */
    uint64_t all_rows; /* a collection's: stored rows when it was measured; a segment's: 0 */
    uint32_t count;    /* entries; 0: there is no curve */
    struct calibration_entry entries[CALIBRATION_MAX_ENTRIES];
    struct calibration *older; /* private to a collection */
};

/* The efforts to try, ascending by k, then by effort: fills k, ef and stretch of number `index`, or
 * returns 0 past the last one. */
OMENDB_INTERNAL int calibration_rung(size_t index, struct calibration_entry *entry);
/* Adds a rung with the recalls that it gave, one a query; calls must follow the ladder. */
OMENDB_INTERNAL void calibration_add(struct calibration *calibration,
                                     const struct calibration_entry *rung, const float *recalls,
                                     uint32_t queries);
/* 1 when a greater effort for this k could tell nothing more. */
OMENDB_INTERNAL int calibration_is_enough(const struct calibration *calibration, uint32_t k);

/* An answer of a curve. */
struct calibration_answer {
    size_t ef;
    float stretch;
    float recall;      /* promised: mean over queries like the sample's */
    uint32_t warnings; /* OMENDB_EXPLAIN_* */
};
/* The least effort whose bound reaches `recall`, or the greatest one with a warning. The curve is
 * that of the smallest k which is not below the one asked; beyond the largest, ef grows with k. */
OMENDB_INTERNAL void calibration_find_effort(const struct calibration *calibration, size_t k,
                                             float recall, struct calibration_answer *answer);
/* What an ef without a stretch promises. */
OMENDB_INTERNAL void calibration_find_recall(const struct calibration *calibration, size_t k,
                                             size_t ef, struct calibration_answer *answer);

/* Bytes on disk (format.h); 0 without a curve. A multiple of 8. */
OMENDB_INTERNAL size_t calibration_bytes(const struct calibration *calibration);
OMENDB_INTERNAL void calibration_encode(const struct calibration *calibration, uint8_t *bytes);
/* Whether every number is in its range and entries ascend. */
OMENDB_INTERNAL int calibration_is_legal(const struct calibration *calibration);
/* Whether a section, or an entry of the manifest, may have this length. */
OMENDB_INTERNAL int calibration_length_is_legal(uint64_t length);
/* 0, and no entries, where the bytes are not those of a legal curve. */
OMENDB_INTERNAL int calibration_decode(struct calibration *calibration, const uint8_t *bytes,
                                       uint64_t length);

#endif

/* calibration.c, continued */

/* ==============================================================================================
 * format.h
 * ============================================================================================== */

/* format.h: every byte on disk. No other file knows a magic, a version or an offset.
 *
 * All numbers are little-endian; files are read and written by copying, never by laying a struct
 * over bytes. The four kinds of file begin with 64 bytes that are arranged alike, so that one check
 * serves all of them and a later version can still be told from damage:
 *
 *    0  8  magic: "OMENDBWL" log, "OMENDBSG" segments, "OMENDBOV" overlays, "OMENDBMF" manifest
 *    8  4  format version (1). A larger one is refused
 *   12  4  features that a reader may ignore            (no bit is given out yet)
 *   16  4  features that forbid writing the database    (likewise; the manifest has those of the
 *          files that it names)
 *   20  4  features that forbid opening the file        (likewise)
 *   24 32  by kind, see below
 *   56  4  CRC32C of bytes 0 to 55
 *   60  4  zero
 *
 * Log (wal.h tells how it is read):
 *   24  8  log id: random, not 0; repeated in each record
 *   32  8  sequence of the first record
 *   40  8  number of the preceding log, 0: none
 *   48  8  final length of the preceding log
 *   64     records, each at a multiple of 8:
 *             0  4  bytes of payload
 *             4  4  CRC32C of the record's other bytes: 0 to 3, then 8 to the end, with padding
 *             8  8  sequence
 *            16  8  log id
 *            24  8  durable_upto: offset known to be on the device when this was appended; at
 *                   most the record's own
 *            32  4  type
 *            36  4  zero
 *            40     payload (commit.c has its layout), zeros to a multiple of 8
 *
 * Segments and overlays:
 *   24  8  file number
 *   32 24  zero; kept for a key id and the prefix of a nonce
 *   64     sections, each at a multiple of 64, zeros between and up to a multiple of 16,384: the
 *          data blocks
 *          footer, from there to the end of the file:
 *             parts, 96 bytes each (FORMAT_PART_*)
 *             sections, 24 bytes each, ascending by part and offset:
 *                u32 part, u32 type, u64 offset, u64 length
 *             u32 CRC32C of each data block, begun with u64 file number and u64 block number
 *             trailer of 32 bytes: "OMENDBFT", u64 bytes of the footer, u32 parts, u32 sections,
 *                u32 zero, u32 CRC32C of the footer's other bytes, begun with u64 file number
 *
 * The curve of recall by effort (calibration.h), a section of segments:
 *    0  4  entries, at least 1
 *    4  4  queries in the largest sample
 *    8  4  rows of the graph when it was measured
 *   12  4  zero
 *   16  8  rows of the collection then; 0 in segments
 *   24     entries, 24 bytes each, ascending by k, ef, stretch:
 *             u32 k, u32 ef, f32 stretch, f32 mean recall, f32 its lower 95 % bound, u32 zero
 *
 * Manifest:
 *   24  8  bytes of the file
 *   32  8  its number
 *   40  4  CRC32C of all bytes from 64 on
 *   44 12  zero
 *   64  8  commit: what is later is in the logs
 *   72  8  first log to replay, 0: none
 *   80  8  next number of a file
 *   88  8  next id of a collection
 *   96  4  files
 *  100  4  collections
 *  104     files, 24 bytes each, ascending:
 *             u64 number, u64 bytes, u32 CRC32C of the footer, u32 kind (1 segments, 2 overlays)
 *          collections, ascending by name: 72 fixed bytes (FORMAT_COLLECTION_*), the name, zeros
 *          to a multiple of 8, then segments, 24 bytes each:
 *             u64 file, u32 part, u32 overlay's part, u64 overlay's file (0: none)
 *          and the curve that omendb_calibrate measured, as in segments, if there is one
 *
 * CURRENT is text: the manifest's name and a newline, the CRC32C of that line in eight hexadecimal
 * digits and a newline. It is replaced by a rename over it, never written in place.
 *
 * Rejected: varints (a few bytes in files of megabytes, for a parser with a loop at each field);
 * checksums inside the data blocks (sections would not be contiguous when mapped, and a block could
 * vouch for itself in the wrong place). */
#ifndef OMENDB_FORMAT_H
#define OMENDB_FORMAT_H

#define FORMAT_VERSION 1
_Static_assert(FORMAT_VERSION == OMENDB_FORMAT_VERSION,
               "omendb.h states the version of these files");

#define FORMAT_MAGIC_WAL      "OMENDBWL"
#define FORMAT_MAGIC_SEGMENT  "OMENDBSG"
#define FORMAT_MAGIC_OVERLAY  "OMENDBOV"
#define FORMAT_MAGIC_MANIFEST "OMENDBMF"
#define FORMAT_MAGIC_FOOTER   "OMENDBFT"
#define FORMAT_MAGIC_BYTES    8

enum format_header {
    FORMAT_HEADER_VERSION = 8,
    FORMAT_HEADER_IGNORE = 12,
    FORMAT_HEADER_READ_ONLY = 16,
    FORMAT_HEADER_REFUSE = 20,
    FORMAT_HEADER_OWN = 24, /* the fields of the kind */
    FORMAT_HEADER_CRC = 56,
    FORMAT_HEADER_ZERO = 60,
    FORMAT_HEADER_BYTES = 64
};
_Static_assert(FORMAT_HEADER_VERSION == FORMAT_MAGIC_BYTES &&
                   FORMAT_HEADER_REFUSE + 4 == FORMAT_HEADER_OWN,
               "version and masks lie between magic and the fields of the kind");
_Static_assert(FORMAT_HEADER_OWN + 32 == FORMAT_HEADER_CRC &&
                   FORMAT_HEADER_ZERO + 4 == FORMAT_HEADER_BYTES,
               "32 bytes of fields, a checksum, zeros");

enum format_wal {
    FORMAT_WAL_LOG_ID = 24,
    FORMAT_WAL_FIRST_SEQUENCE = 32,
    FORMAT_WAL_PREDECESSOR = 40,
    FORMAT_WAL_PREDECESSOR_LENGTH = 48
};
_Static_assert(FORMAT_WAL_PREDECESSOR_LENGTH + 8 == FORMAT_HEADER_CRC,
               "four numbers fill the log's header");

enum format_record {
    FORMAT_RECORD_LENGTH = 0,
    FORMAT_RECORD_CRC = 4,
    FORMAT_RECORD_SEQUENCE = 8,
    FORMAT_RECORD_LOG_ID = 16,
    FORMAT_RECORD_DURABLE = 24,
    FORMAT_RECORD_TYPE = 32,
    FORMAT_RECORD_ZERO = 36,
    FORMAT_RECORD_BYTES = 40,
    FORMAT_RECORD_ALIGN = 8
};
_Static_assert(FORMAT_RECORD_ZERO + 4 == FORMAT_RECORD_BYTES &&
                   FORMAT_RECORD_BYTES % FORMAT_RECORD_ALIGN == 0,
               "a payload begins at a multiple of 8");
_Static_assert(FORMAT_HEADER_BYTES % FORMAT_RECORD_ALIGN == 0, "so does the first record");

enum format_segment {
    FORMAT_SEGMENT_NUMBER = 24,
    FORMAT_SEGMENT_KEPT = 32,
    FORMAT_SECTION_ALIGN = 64
};
_Static_assert(FORMAT_SEGMENT_KEPT + 24 == FORMAT_HEADER_CRC, "24 bytes are kept for encryption");
_Static_assert(FORMAT_HEADER_BYTES % FORMAT_SECTION_ALIGN == 0,
               "the first section follows the header");

enum format_part {
    FORMAT_PART_COLLECTION = 0,
    FORMAT_PART_TARGET_FILE = 8,
    FORMAT_PART_SMALLEST_ID = 16,
    FORMAT_PART_LARGEST_ID = 24,
    FORMAT_PART_TARGET_PART = 32,
    FORMAT_PART_FLAGS = 36,
    FORMAT_PART_ROWS = 40,
    FORMAT_PART_INDEXED_ROWS = 44,
    FORMAT_PART_UPPER_COUNT = 48,
    FORMAT_PART_ENTRY_ROW = 52,
    FORMAT_PART_ENTRY_LEVEL = 56,
    FORMAT_PART_M = 60,
    FORMAT_PART_VECTOR_STRIDE = 64,
    FORMAT_PART_DIM = 68,
    FORMAT_PART_SCALAR = 72,
    FORMAT_PART_METRIC = 76,
    FORMAT_PART_REFERENCE_RECALL = 80, /* IEEE 754 binary32 */
    FORMAT_PART_REFERENCE_ROWS = 84,
    FORMAT_PART_CODE_LOW = 88,  /* IEEE 754 binary32 */
    FORMAT_PART_CODE_STEP = 92, /* IEEE 754 binary32 */
    FORMAT_PART_BYTES = 96
};
_Static_assert(FORMAT_PART_CODE_STEP + 4 == FORMAT_PART_BYTES, "a part has no free bytes");

enum format_section {
    FORMAT_SECTION_PART = 0,
    FORMAT_SECTION_TYPE = 4,
    FORMAT_SECTION_OFFSET = 8,
    FORMAT_SECTION_LENGTH = 16,
    FORMAT_SECTION_BYTES = 24
};

enum format_trailer {
    FORMAT_TRAILER_LENGTH = 8,
    FORMAT_TRAILER_PARTS = 16,
    FORMAT_TRAILER_SECTIONS = 20,
    FORMAT_TRAILER_ZERO = 24,
    FORMAT_TRAILER_CRC = 28,
    FORMAT_TRAILER_BYTES = 32
};
_Static_assert(FORMAT_TRAILER_CRC + 4 == FORMAT_TRAILER_BYTES,
               "the footer's checksum ends the file");

enum format_manifest {
    FORMAT_MANIFEST_LENGTH = 24,
    FORMAT_MANIFEST_NUMBER = 32,
    FORMAT_MANIFEST_CRC = 40,
    FORMAT_MANIFEST_KEPT = 44,
    FORMAT_MANIFEST_COMMIT = 64,
    FORMAT_MANIFEST_WAL = 72,
    FORMAT_MANIFEST_NEXT_FILE = 80,
    FORMAT_MANIFEST_NEXT_COLLECTION = 88,
    FORMAT_MANIFEST_FILES = 96,
    FORMAT_MANIFEST_COLLECTIONS = 100,
    FORMAT_MANIFEST_BYTES = 104
};
_Static_assert(FORMAT_MANIFEST_KEPT + 12 == FORMAT_HEADER_CRC,
               "12 bytes of the manifest's header are free");
_Static_assert((int)FORMAT_MANIFEST_COMMIT == (int)FORMAT_HEADER_BYTES,
               "its fields follow the header");

enum format_file {
    FORMAT_FILE_NUMBER = 0,
    FORMAT_FILE_SIZE = 8,
    FORMAT_FILE_CRC = 16,
    FORMAT_FILE_KIND = 20,
    FORMAT_FILE_BYTES = 24,
    FORMAT_KIND_SEGMENT = 1,
    FORMAT_KIND_OVERLAY = 2
};

enum format_collection {
    FORMAT_COLLECTION_ID = 0,
    FORMAT_COLLECTION_NEXT_ID = 8,
    FORMAT_COLLECTION_SEED = 16,
    FORMAT_COLLECTION_DIM = 24,
    FORMAT_COLLECTION_METRIC = 28,
    FORMAT_COLLECTION_SCALAR = 32,
    FORMAT_COLLECTION_SCALE = 36, /* IEEE 754 binary32 */
    FORMAT_COLLECTION_M = 40,
    FORMAT_COLLECTION_EF_CONSTRUCTION = 44,
    FORMAT_COLLECTION_EF = 48,
    FORMAT_COLLECTION_NAME_BYTES = 52,
    FORMAT_COLLECTION_SEGMENTS = 56,
    FORMAT_COLLECTION_CALIBRATION = 60, /* bytes of the curve, 0: none */
    FORMAT_COLLECTION_ZERO = 64,
    FORMAT_COLLECTION_BYTES = 72
};
_Static_assert(FORMAT_COLLECTION_ZERO + 8 == FORMAT_COLLECTION_BYTES,
               "8 bytes of a collection are free");

enum format_calibration {
    FORMAT_CALIBRATION_ENTRIES = 0,
    FORMAT_CALIBRATION_QUERIES = 4,
    FORMAT_CALIBRATION_ROWS = 8,
    FORMAT_CALIBRATION_ZERO = 12,
    FORMAT_CALIBRATION_ALL_ROWS = 16,
    FORMAT_CALIBRATION_BYTES = 24
};

enum format_curve {
    FORMAT_CURVE_K = 0,
    FORMAT_CURVE_EF = 4,
    FORMAT_CURVE_STRETCH = 8, /* IEEE 754 binary32, as the next two */
    FORMAT_CURVE_MEAN = 12,
    FORMAT_CURVE_LOW = 16,
    FORMAT_CURVE_ZERO = 20,
    FORMAT_CURVE_BYTES = 24
};
_Static_assert((int)FORMAT_CALIBRATION_BYTES % 8 == 0 && (int)FORMAT_CURVE_BYTES % 8 == 0,
               "what follows a curve in the manifest stays aligned");

enum format_reference {
    FORMAT_REFERENCE_FILE = 0,
    FORMAT_REFERENCE_PART = 8,
    FORMAT_REFERENCE_OVERLAY_PART = 12,
    FORMAT_REFERENCE_OVERLAY_FILE = 16,
    FORMAT_REFERENCE_BYTES = 24
};

static inline void format_put32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof value);
}

static inline void format_put64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof value);
}

static inline void format_put_float(uint8_t *at, float value)
{
    memcpy(at, &value, sizeof value);
}

static inline uint32_t format_get32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint64_t format_get64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline float format_get_float(const uint8_t *at)
{
    float value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline int format_is_zero(const uint8_t *at, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (at[i] != 0)
            return 0;
    }
    return 1;
}

/* `value` rounded up to a multiple of `align`, a power of two; the sum must fit. */
static inline uint64_t format_align(uint64_t value, uint64_t align)
{
    return (value + align - 1) & ~(align - 1);
}

#endif

/* calibration.c, continued */

#define CALIBRATION_NORMAL 1.645 /* one-sided 95 % of the normal distribution */
#define CALIBRATION_ENOUGH 0.999f

/* ------------------------------------------------------------------ making */

OMENDB_INTERNAL int calibration_rung(size_t index, struct calibration_entry *entry)
{
    /* Steps of about one and a half: a straight line between two is below the curve by less than
     * the sample's own doubt. */
    static const uint32_t ladder[][2] = {
        {10, 10},   {10, 15},   {10, 22},   {10, 33},   {10, 50},   {10, 75},   {10, 110},
        {10, 165},  {10, 250},  {10, 375},  {10, 560},  {10, 850},  {100, 100}, {100, 140},
        {100, 200}, {100, 280}, {100, 400}, {100, 600}, {100, 900},
    };
    _Static_assert(sizeof ladder / sizeof ladder[0] <= CALIBRATION_MAX_ENTRIES,
                   "a curve holds the ladder");
    if (index >= sizeof ladder / sizeof ladder[0])
        return 0;
    *entry = (struct calibration_entry){.k = ladder[index][0], .ef = ladder[index][1]};
    return 1;
}

OMENDB_INTERNAL void calibration_add(struct calibration *calibration,
                                     const struct calibration_entry *rung, const float *recalls,
                                     uint32_t queries)
{
    double sum = 0.0, miss = 1.0 / rung->k, squares = miss * miss;
    struct calibration_entry entry = *rung;
    if (calibration->count == CALIBRATION_MAX_ENTRIES || queries == 0)
        return;
    for (uint32_t i = 0; i < queries; i++)
        sum += (double)recalls[i];
    double mean = sum / queries;
    for (uint32_t i = 0; i < queries; i++)
        squares += ((double)recalls[i] - mean) * ((double)recalls[i] - mean);
    double low = mean - CALIBRATION_NORMAL * sqrt(squares) / queries;
    entry.mean = (float)mean;
    entry.low = low > 0.0 ? (float)low : 0.0f;
    if (calibration->count != 0) {
        const struct calibration_entry *last = &calibration->entries[calibration->count - 1];
        if (last->k == entry.k) {
            entry.mean = entry.mean > last->mean ? entry.mean : last->mean;
            entry.low = entry.low > last->low ? entry.low : last->low;
        }
    }
    calibration->queries = queries > calibration->queries ? queries : calibration->queries;
    calibration->entries[calibration->count++] = entry;
}

OMENDB_INTERNAL int calibration_is_enough(const struct calibration *calibration, uint32_t k)
{
    if (calibration->count == 0)
        return 0;
    const struct calibration_entry *last = &calibration->entries[calibration->count - 1];
    return last->k == k && last->low >= CALIBRATION_ENOUGH;
}

/* ------------------------------------------------------------------ asking */

/* The entries [*first, *last] for k, and by how much ef is to grow. There is at least one entry. */
static double calibration_group(const struct calibration *calibration, size_t k, uint32_t *first,
                                uint32_t *last)
{
    const struct calibration_entry *entries = calibration->entries;
    uint32_t at = 0, end;
    for (;; at = end + 1) {
        end = at;
        while (end + 1 < calibration->count && entries[end + 1].k == entries[at].k)
            end++;
        if (entries[at].k >= k || end + 1 == calibration->count)
            break;
    }
    *first = at;
    *last = end;
    return k > entries[at].k ? (double)k / entries[at].k : 1.0;
}

static size_t calibration_scaled_ef(double ef, double growth)
{
    ef = ceil(ef * growth - 1e-6);
    return ef < CALIBRATION_LARGEST_EF ? (size_t)ef : CALIBRATION_LARGEST_EF;
}

OMENDB_INTERNAL void calibration_find_effort(const struct calibration *calibration, size_t k,
                                             float recall, struct calibration_answer *answer)
{
    uint32_t first, last, at;
    double growth = calibration_group(calibration, k, &first, &last);
    const struct calibration_entry *entries = calibration->entries;
    answer->warnings = growth > 1.0 ? OMENDB_EXPLAIN_K_BEYOND : 0;
    for (at = first; at < last && entries[at].low < recall; at++)
        continue;
    const struct calibration_entry *to = &entries[at];
    double ef = to->ef;
    answer->stretch = to->stretch;
    answer->recall = to->low;
    if (to->low < recall) {
        answer->warnings |= OMENDB_EXPLAIN_RECALL_BEYOND;
    } else if (at > first) {
        const struct calibration_entry *from = to - 1;
        double part = ((double)recall - (double)from->low) / ((double)to->low - (double)from->low);
        ef = from->ef * pow((double)to->ef / from->ef, part);
        answer->stretch = from->stretch + (float)part * (to->stretch - from->stretch);
        answer->recall = recall;
    }
    answer->ef = calibration_scaled_ef(ef, growth);
}

OMENDB_INTERNAL void calibration_find_recall(const struct calibration *calibration, size_t k,
                                             size_t ef, struct calibration_answer *answer)
{
    uint32_t first, last, at;
    double growth = calibration_group(calibration, k, &first, &last);
    double asked = (double)ef / growth;
    const struct calibration_entry *entries = calibration->entries;
    *answer =
        (struct calibration_answer){ef, 0.0f, 0.0f, growth > 1.0 ? OMENDB_EXPLAIN_K_BEYOND : 0};
    for (at = first; at <= last && entries[at].ef <= asked; at++)
        answer->recall = entries[at].low;
    if (at > first && at <= last) {
        const struct calibration_entry *from = &entries[at - 1], *to = &entries[at];
        double part = log(asked / from->ef) / log((double)to->ef / from->ef);
        answer->recall += (float)part * (to->low - from->low);
    }
}

/* ------------------------------------------------------------------ storing */

OMENDB_INTERNAL size_t calibration_bytes(const struct calibration *calibration)
{
    if (calibration == NULL || calibration->count == 0)
        return 0;
    return FORMAT_CALIBRATION_BYTES + (size_t)calibration->count * FORMAT_CURVE_BYTES;
}

OMENDB_INTERNAL void calibration_encode(const struct calibration *calibration, uint8_t *bytes)
{
    memset(bytes, 0, calibration_bytes(calibration));
    format_put32(bytes + FORMAT_CALIBRATION_ENTRIES, calibration->count);
    format_put32(bytes + FORMAT_CALIBRATION_QUERIES, calibration->queries);
    format_put32(bytes + FORMAT_CALIBRATION_ROWS, calibration->rows);
    format_put64(bytes + FORMAT_CALIBRATION_ALL_ROWS, calibration->all_rows);
    uint8_t *at = bytes + FORMAT_CALIBRATION_BYTES;
    for (uint32_t i = 0; i < calibration->count; i++, at += FORMAT_CURVE_BYTES) {
        const struct calibration_entry *entry = &calibration->entries[i];
        format_put32(at + FORMAT_CURVE_K, entry->k);
        format_put32(at + FORMAT_CURVE_EF, entry->ef);
        format_put_float(at + FORMAT_CURVE_STRETCH, entry->stretch);
        format_put_float(at + FORMAT_CURVE_MEAN, entry->mean);
        format_put_float(at + FORMAT_CURVE_LOW, entry->low);
    }
}

OMENDB_INTERNAL int calibration_length_is_legal(uint64_t length)
{
    return length > FORMAT_CALIBRATION_BYTES &&
           (length - FORMAT_CALIBRATION_BYTES) % FORMAT_CURVE_BYTES == 0 &&
           (length - FORMAT_CALIBRATION_BYTES) / FORMAT_CURVE_BYTES <= CALIBRATION_MAX_ENTRIES;
}

/* Comparisons that a NaN fails. */
static int calibration_entry_is_legal(const struct calibration_entry *entry)
{
    return entry->k >= 1 && entry->k <= CALIBRATION_LARGEST_EF && entry->ef >= 1 &&
           entry->ef <= CALIBRATION_LARGEST_EF && entry->stretch >= 0.0f &&
           entry->stretch <= FLT_MAX && entry->low >= 0.0f && entry->low <= entry->mean &&
           entry->mean <= 1.0f;
}

static int calibration_ascends(const struct calibration_entry *from,
                               const struct calibration_entry *to)
{
    if (from->k != to->k)
        return from->k < to->k;
    return from->ef <= to->ef && from->stretch <= to->stretch &&
           (from->ef < to->ef || from->stretch < to->stretch) && from->low <= to->low;
}

OMENDB_INTERNAL int calibration_is_legal(const struct calibration *calibration)
{
    const struct calibration_entry *entries = calibration->entries;
    if (calibration->count == 0 || calibration->count > CALIBRATION_MAX_ENTRIES)
        return 0;
    for (uint32_t i = 0; i < calibration->count; i++) {
        if (!calibration_entry_is_legal(&entries[i]) ||
            (i > 0 && !calibration_ascends(&entries[i - 1], &entries[i])))
            return 0;
    }
    return 1;
}

OMENDB_INTERNAL int calibration_decode(struct calibration *calibration, const uint8_t *bytes,
                                       uint64_t length)
{
    memset(calibration, 0, sizeof *calibration);
    if (!calibration_length_is_legal(length))
        return 0;
    uint32_t count = format_get32(bytes + FORMAT_CALIBRATION_ENTRIES);
    const uint8_t *at = bytes + FORMAT_CALIBRATION_BYTES;
    if (count != (length - FORMAT_CALIBRATION_BYTES) / FORMAT_CURVE_BYTES)
        return 0;
    for (uint32_t i = 0; i < count; i++, at += FORMAT_CURVE_BYTES) {
        struct calibration_entry *entry = &calibration->entries[i];
        entry->k = format_get32(at + FORMAT_CURVE_K);
        entry->ef = format_get32(at + FORMAT_CURVE_EF);
        entry->stretch = format_get_float(at + FORMAT_CURVE_STRETCH);
        entry->mean = format_get_float(at + FORMAT_CURVE_MEAN);
        entry->low = format_get_float(at + FORMAT_CURVE_LOW);
    }
    calibration->queries = format_get32(bytes + FORMAT_CALIBRATION_QUERIES);
    calibration->rows = format_get32(bytes + FORMAT_CALIBRATION_ROWS);
    calibration->all_rows = format_get64(bytes + FORMAT_CALIBRATION_ALL_ROWS);
    calibration->count = count;
    if (!calibration_is_legal(calibration))
        calibration->count = 0;
    return calibration->count != 0;
}

#undef CALIBRATION_NORMAL
#undef CALIBRATION_ENOUGH

/* ==============================================================================================
 * storage.c
 * ============================================================================================== */

/* storage.c: the vfs of one database, with sentences and counters.
 *
 * Invariant: every failure that leaves here has set the thread's sentence, with the file's name,
 * the offset where there is one, the system's reason and what to do; and a sync that failed is
 * remembered in `sync_failed`, because the pages it was about may be clean now although they never
 * reached the device (a second sync would succeed and mean nothing).
 *
 * Syncs are skipped here under OMENDB_SYNC_OFF, and only here, so that callers read as the protocol
 * they implement.
 *
 * Rejected: repeating what failed. The vfs repeats interrupted and short calls; anything else is
 * for the caller's caller. */

static const char *const storage_prefixes[] = {[STORAGE_WAL] = "wal-",
                                               [STORAGE_SEGMENT] = "seg-",
                                               [STORAGE_OVERLAY] = "ovl-",
                                               [STORAGE_MANIFEST] = "MANIFEST-"};
#define STORAGE_KINDS (sizeof storage_prefixes / sizeof storage_prefixes[0])

OMENDB_INTERNAL void storage_name(enum storage_kind kind, uint64_t number,
                                  char name[STORAGE_NAME_BYTES])
{
    snprintf(name, STORAGE_NAME_BYTES, "%s%" PRIu64, storage_prefixes[kind], number);
}

/* Strict: the digits that storage_name writes and no others, so that a number has one name. */
static int storage_parse_number(const char *digits, uint64_t *number)
{
    uint64_t value = 0;
    size_t count = strlen(digits);
    if (count == 0 || count > 20 || (count > 1 && digits[0] == '0'))
        return 0;
    for (size_t i = 0; i < count; i++) {
        if (digits[i] < '0' || digits[i] > '9')
            return 0;
        uint64_t digit = (uint64_t)(digits[i] - '0');
        if (value > (UINT64_MAX - digit) / 10)
            return 0;
        value = value * 10 + digit;
    }
    *number = value;
    return 1;
}

OMENDB_INTERNAL int storage_parse_name(const char *name, enum storage_kind *kind, uint64_t *number)
{
    for (size_t i = 0; i < STORAGE_KINDS; i++) {
        size_t length = strlen(storage_prefixes[i]);
        if (strncmp(name, storage_prefixes[i], length) == 0 &&
            storage_parse_number(name + length, number)) {
            *kind = (enum storage_kind)i;
            return 1;
        }
    }
    return 0;
}

/* What a person can do about a code; "" where the reason says it all. */
static const char *storage_advice(int code)
{
    switch (code) {
    case OMENDB_FULL:
        return " (free some space)";
    case OMENDB_PERMISSION:
        return " (check owner and mode of the database)";
    case OMENDB_NOMEM:
        return " (raise memory_limit)";
    default:
        return "";
    }
}

/* Gives the sentence to a failed call of the vfs; `reason` is its errno. */
static int storage_fail(int code, int reason, const char *what, const char *name)
{
    return error_set_system(code, reason, "cannot %s %s%s", what, name, storage_advice(code));
}

static int storage_fail_at(int code, int reason, const char *what, const char *name,
                           uint64_t offset, uint64_t size)
{
    return error_set_system(code, reason,
                            "cannot %s %" PRIu64 " bytes at offset %" PRIu64 " of %s%s", what, size,
                            offset, name, storage_advice(code));
}

OMENDB_INTERNAL int storage_open(struct storage *storage, const char *name, int flags,
                                 struct storage_file *file)
{
    file->handle = NULL;
    snprintf(file->name, sizeof file->name, "%s", name);
    errno = 0;
    int code =
        storage->vfs->open(storage->vfs->context, storage->directory, name, flags, &file->handle);
    if (code == OMENDB_OK)
        return OMENDB_OK;
    int reason = errno;
    file->handle = NULL;
    return storage_fail(code, reason, (flags & OMENDB_OPEN_CREATE) ? "create" : "open", name);
}

OMENDB_INTERNAL int storage_close(struct storage *storage, struct storage_file *file)
{
    if (file->handle == NULL)
        return OMENDB_OK;
    void *handle = file->handle;
    file->handle = NULL; /* also on failure: the descriptor is gone either way */
    errno = 0;
    int code = storage->vfs->close(storage->vfs->context, handle);
    return code == OMENDB_OK ? OMENDB_OK : storage_fail(code, errno, "close", file->name);
}

OMENDB_INTERNAL int storage_size(struct storage *storage, struct storage_file *file, uint64_t *size)
{
    errno = 0;
    int code = storage->vfs->size(storage->vfs->context, file->handle, size);
    return code == OMENDB_OK ? OMENDB_OK : storage_fail(code, errno, "get the size of", file->name);
}

OMENDB_INTERNAL int storage_read(struct storage *storage, struct storage_file *file,
                                 uint64_t offset, void *buffer, size_t size)
{
    if (size == 0)
        return OMENDB_OK;
    errno = 0;
    int code = storage->vfs->read(storage->vfs->context, file->handle, offset, buffer, size);
    return code == OMENDB_OK ? OMENDB_OK
                             : storage_fail_at(code, errno, "read", file->name, offset, size);
}

OMENDB_INTERNAL int storage_write(struct storage *storage, struct storage_file *file,
                                  uint64_t offset, const void *buffer, size_t size)
{
    if (size == 0)
        return OMENDB_OK;
    errno = 0;
    int code = storage->vfs->write(storage->vfs->context, file->handle, offset, buffer, size);
    if (code != OMENDB_OK)
        return storage_fail_at(code, errno, "write", file->name, offset, size);
    atomic_fetch_add_explicit(&storage->written_bytes, size, memory_order_relaxed);
    return OMENDB_OK;
}

OMENDB_INTERNAL int storage_truncate(struct storage *storage, struct storage_file *file,
                                     uint64_t size)
{
    errno = 0;
    int code = storage->vfs->truncate(storage->vfs->context, file->handle, size);
    return code == OMENDB_OK ? OMENDB_OK : storage_fail(code, errno, "truncate", file->name);
}

OMENDB_INTERNAL int storage_allocate(struct storage *storage, struct storage_file *file,
                                     uint64_t size)
{
    errno = 0;
    int code = storage->vfs->allocate(storage->vfs->context, file->handle, size);
    return code == OMENDB_OK ? OMENDB_OK
                             : storage_fail(code, errno, "reserve space for", file->name);
}

/* Relaxed counters; the mark is a release so that whoever sees it also sees what was written before
 * the failure. */
static int storage_synced(struct storage *storage, int code, const char *name)
{
    int reason = errno;
    atomic_fetch_add_explicit(&storage->syncs, 1, memory_order_relaxed);
    if (code == OMENDB_OK)
        return OMENDB_OK;
    atomic_store_explicit(&storage->sync_failed, 1, memory_order_release);
    return error_set_system(
        code, reason, "cannot sync %s; what was written may be lost: close and reopen the database",
        name);
}

OMENDB_INTERNAL int storage_sync(struct storage *storage, struct storage_file *file)
{
    if (storage->sync == OMENDB_SYNC_OFF)
        return OMENDB_OK;
    errno = 0;
    return storage_synced(storage, storage->vfs->sync(storage->vfs->context, file->handle),
                          file->name);
}

OMENDB_INTERNAL int storage_sync_directory(struct storage *storage)
{
    if (storage->sync == OMENDB_SYNC_OFF)
        return OMENDB_OK;
    errno = 0;
    return storage_synced(storage,
                          storage->vfs->sync_directory(storage->vfs->context, storage->directory),
                          "the directory");
}

OMENDB_INTERNAL int storage_rename(struct storage *storage, const char *from, const char *to)
{
    errno = 0;
    int code = storage->vfs->rename(storage->vfs->context, storage->directory, from, to);
    return code == OMENDB_OK ? OMENDB_OK : storage_fail(code, errno, "rename to", to);
}

OMENDB_INTERNAL int storage_unlink(struct storage *storage, const char *name)
{
    errno = 0;
    int code = storage->vfs->unlink(storage->vfs->context, storage->directory, name);
    if (code == OMENDB_OK || code == OMENDB_NOTFOUND)
        return OMENDB_OK;
    return storage_fail(code, errno, "delete", name);
}

OMENDB_INTERNAL void storage_header_begin(uint8_t *header, const char *magic)
{
    memset(header, 0, FORMAT_HEADER_BYTES);
    memcpy(header, magic, FORMAT_MAGIC_BYTES);
    format_put32(header + FORMAT_HEADER_VERSION, FORMAT_VERSION);
}

OMENDB_INTERNAL void storage_header_end(uint8_t *header)
{
    format_put32(header + FORMAT_HEADER_CRC, checksum_crc32c(0, header, FORMAT_HEADER_CRC));
}

OMENDB_INTERNAL int storage_header_check(const char *name, const uint8_t *header, const char *magic)
{
    if (memcmp(header, magic, FORMAT_MAGIC_BYTES) != 0)
        return error_set(OMENDB_FORMAT, "%s: not a file of OmenDB: it does not begin with %s", name,
                         magic);
    uint32_t crc = checksum_crc32c(0, header, FORMAT_HEADER_CRC),
             stored = format_get32(header + FORMAT_HEADER_CRC);
    if (crc != stored || format_get32(header + FORMAT_HEADER_ZERO) != 0)
        return error_set(OMENDB_CORRUPT,
                         "%s: header (offset 0): checksum %08" PRIx32 ", expected %08" PRIx32
                         "; restore from a backup",
                         name, crc, stored);
    uint32_t version = format_get32(header + FORMAT_HEADER_VERSION);
    if (version == 0 || version > FORMAT_VERSION)
        return error_set(OMENDB_FORMAT,
                         "%s: format version %" PRIu32
                         ", this library reads up to %d; use a later OmenDB",
                         name, version, FORMAT_VERSION);
    uint32_t refuse = format_get32(header + FORMAT_HEADER_REFUSE);
    if (refuse != 0)
        return error_set(OMENDB_FORMAT,
                         "%s: needs features %08" PRIx32
                         " that this library lacks; use a later OmenDB",
                         name, refuse);
    return OMENDB_OK;
}

#undef STORAGE_KINDS

/* ==============================================================================================
 * blocks.c
 * ============================================================================================== */

/* blocks.c: first touch of the blocks of an immutable file.
 *
 * Invariant: a block's bit in `verified` is set (release) after its bytes at `base` were found to
 * match the checksum, and never cleared; who loads the bit (acquire) may read the bytes.
 * `unverified` is decremented once a bit, by the one thread whose fetch_or found it clear, so it
 * reaches 0 exactly when all bits are set.
 *
 * Mapped blocks are verified without a lock: two threads may both compute a checksum, which is
 * cheaper than making one wait. Blocks that are read are written into `base`, so one thread at a
 * time does that, and only for blocks whose bit is clear, at which nobody else looks.
 *
 * Rejected: verifying everything when the file is opened (opening would take a second a gigabyte),
 * and a background thread that verifies ahead (it would read cold data that nobody asked for). */

/* Blocks that one read brings at most. */
#define BLOCKS_RUN 64

struct block_source {
    struct storage *storage;
    struct storage_file file; /* closed when mapped */
    uint64_t number;
    const uint32_t *checksums;  /* one a block; NULL: a view in which everything is verified */
    uint8_t *memory;            /* writable `base`; NULL when mapped */
    size_t words;               /* of `verified` */
    struct platform_mutex lock; /* over file, and over the blocks of `memory` whose bit is clear */
};

OMENDB_INTERNAL uint32_t blocks_checksum(uint64_t number, uint64_t block, const void *data)
{
    uint8_t place[16];
    format_put64(place, number);
    format_put64(place + 8, block);
    return checksum_crc32c(checksum_crc32c(0, place, sizeof place), data, BLOCK_BYTES);
}

static int blocks_compare(const struct block_source *source, uint64_t block, const void *data)
{
    uint32_t crc = blocks_checksum(source->number, block, data);
    if (OMENDB_LIKELY(crc == source->checksums[block]))
        return OMENDB_OK;
    return error_set(OMENDB_CORRUPT,
                     "%s: block %" PRIu64 " (offset %" PRIu64 "): checksum %08" PRIx32
                     ", expected %08" PRIx32 "; restore from a backup, or run check",
                     source->file.name, block, block << BLOCK_SHIFT, crc, source->checksums[block]);
}

static int blocks_is_verified(struct block_file *file, uint64_t block)
{
    uint64_t word = atomic_load_explicit(&file->verified[block >> 6], memory_order_acquire);
    return (int)((word >> (block & 63)) & 1);
}

static void blocks_publish(struct block_file *file, uint64_t block)
{
    uint64_t bit = UINT64_C(1) << (block & 63);
    uint64_t before =
        atomic_fetch_or_explicit(&file->verified[block >> 6], bit, memory_order_acq_rel);
    if ((before & bit) == 0)
        atomic_fetch_sub_explicit(&file->unverified, 1, memory_order_acq_rel);
}

/* Verifies the blocks [first, end), none of which is verified yet, in place. A block is published
 * even if a later one of the run is bad. */
static int blocks_verify_run(struct block_file *file, uint64_t first, uint64_t end)
{
    for (uint64_t block = first; block < end; block++) {
        int code = blocks_compare(file->source, block, file->base + (block << BLOCK_SHIFT));
        if (code != OMENDB_OK)
            return code;
        blocks_publish(file, block);
    }
    return OMENDB_OK;
}

/* Blocks from `first` whose bit is clear, at most up to `end` and BLOCKS_RUN. */
static uint64_t blocks_run_end(struct block_file *file, uint64_t first, uint64_t end)
{
    uint64_t stop = first;
    while (stop < end && stop - first < BLOCKS_RUN && !blocks_is_verified(file, stop))
        stop++;
    return stop;
}

/* Reads the first run of unverified blocks at or after *block and moves *block behind it. */
static int blocks_read_run(struct block_file *file, uint64_t *block, uint64_t end)
{
    struct block_source *source = file->source;
    int code = OMENDB_OK;
    platform_mutex_lock(&source->lock);
    uint64_t stop = blocks_run_end(file, *block, end);
    if (stop > *block) {
        uint64_t offset = *block << BLOCK_SHIFT;
        code = storage_read(source->storage, &source->file, offset, source->memory + offset,
                            (size_t)((stop - *block) << BLOCK_SHIFT));
        if (code == OMENDB_OK)
            code = blocks_verify_run(file, *block, stop);
    }
    platform_mutex_unlock(&source->lock);
    *block = stop;
    return code;
}

OMENDB_INTERNAL int blocks_touch_slow(struct block_file *file, uint64_t offset, uint64_t length)
{
    if (offset > file->size || length > file->size - offset)
        return error_set(OMENDB_CORRUPT,
                         "%s: %" PRIu64 " bytes at offset %" PRIu64 " lie outside its %" PRIu64
                         " bytes of data; restore from a backup, or run check",
                         file->source->file.name, length, offset, file->size);
    if (length == 0)
        return OMENDB_OK;
    uint64_t block = offset >> BLOCK_SHIFT, end = ((offset + length - 1) >> BLOCK_SHIFT) + 1;
    while (block < end) {
        int code = OMENDB_OK;
        if (blocks_is_verified(file, block)) {
            block++;
        } else if (file->source->memory != NULL) {
            code = blocks_read_run(file, &block, end);
        } else {
            code = blocks_verify_run(file, block, block + 1);
            block++;
        }
        if (code != OMENDB_OK)
            return code;
    }
    return OMENDB_OK;
}

/* OMENDB_UNSUPPORTED where blocks must be read instead. */
static int blocks_map(struct storage *storage, struct storage_file *file, uint64_t size,
                      const void **address)
{
    const omendb_vfs *vfs = storage->vfs;
    if (storage->io != OMENDB_IO_MAP || vfs->map == NULL)
        return OMENDB_UNSUPPORTED;
    int code = vfs->map(vfs->context, file->handle, size, address);
    if (code != OMENDB_OK && code != OMENDB_UNSUPPORTED)
        return error_set(
            code, "cannot map %" PRIu64 " bytes of %s; OMENDB_IO_PREAD reads without mapping", size,
            file->name);
    if (code == OMENDB_OK)
        atomic_fetch_add_explicit(&storage->mapped_bytes, size, memory_order_relaxed);
    return code;
}

/* Finds `base`: a mapping, or memory, which for a view without checksums is filled now. */
static int blocks_open_base(struct storage *storage, struct storage_file *file,
                            struct block_file *blocks)
{
    const void *address = NULL;
    int code = blocks_map(storage, file, blocks->size, &address);
    if (code != OMENDB_UNSUPPORTED) {
        blocks->base = address;
        return code;
    }
    uint8_t *memory = memory_alloc_aligned(storage->memory, memory_add((size_t)blocks->size, 0));
    if (memory == NULL)
        return OMENDB_NOMEM;
    blocks->base = memory;
    blocks->source->memory = memory;
    return blocks->source->checksums == NULL
               ? storage_read(storage, file, 0, memory, (size_t)blocks->size)
               : OMENDB_OK;
}

/* The bits of `verified`, all clear; none for a view. */
static int blocks_open_bits(struct memory *memory, struct block_file *blocks)
{
    uint64_t count = blocks->size >> BLOCK_SHIFT;
    if (blocks->source->checksums == NULL)
        return OMENDB_OK;
    size_t words = (size_t)((count + 63) / 64);
    blocks->verified = memory_zalloc(memory, memory_multiply(words, sizeof *blocks->verified));
    if (blocks->verified == NULL)
        return OMENDB_NOMEM;
    blocks->source->words = words;
    atomic_store_explicit(&blocks->unverified, count, memory_order_relaxed);
    return OMENDB_OK;
}

OMENDB_INTERNAL int blocks_open(struct storage *storage, struct storage_file *file, uint64_t number,
                                uint64_t size, const uint32_t *checksums, struct block_file *blocks)
{
    memset(blocks, 0, sizeof *blocks);
    struct block_source *source = memory_zalloc(storage->memory, sizeof *source);
    if (source == NULL)
        return OMENDB_NOMEM;
    int code = platform_mutex_init(&source->lock);
    if (code != OMENDB_OK) {
        memory_free(storage->memory, source, sizeof *source);
        return error_set(code, "no memory for a lock of %s", file->name);
    }
    source->storage = storage;
    source->number = number;
    source->checksums = checksums;
    memcpy(source->file.name, file->name, sizeof file->name);
    blocks->source = source;
    blocks->size = size;
    code = blocks_open_bits(storage->memory, blocks);
    if (code == OMENDB_OK)
        code = blocks_open_base(storage, file, blocks);
    if (code != OMENDB_OK) {
        blocks_close(blocks);
        return code;
    }
    if (checksums != NULL && source->memory != NULL) {
        source->file = *file;
        file->handle = NULL;
    } else if (checksums != NULL) {
        storage_close(storage,
                      file); /* nothing was written through it: a failure cannot lose anything */
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL void blocks_close(struct block_file *blocks)
{
    struct block_source *source = blocks->source;
    if (source == NULL)
        return;
    struct storage *storage = source->storage;
    if (source->memory != NULL) {
        memory_free_aligned(storage->memory, source->memory, (size_t)blocks->size);
    } else if (blocks->base != NULL) {
        storage->vfs->unmap(storage->vfs->context, blocks->base, blocks->size);
        atomic_fetch_sub_explicit(&storage->mapped_bytes, blocks->size, memory_order_relaxed);
    }
    storage_close(storage, &source->file);
    memory_free(storage->memory, blocks->verified, source->words * sizeof *blocks->verified);
    platform_mutex_destroy(&source->lock);
    memory_free(storage->memory, source, sizeof *source);
    memset(blocks, 0, sizeof *blocks);
}

OMENDB_INTERNAL void blocks_release(struct block_file *file, uint64_t offset, uint64_t length)
{
    const struct block_source *source = file->source;
    const omendb_vfs *vfs = source->storage->vfs;
    uint64_t first = (offset + BLOCK_BYTES - 1) >> BLOCK_SHIFT,
             end = (offset + length) >> BLOCK_SHIFT;
    if (source->memory != NULL || vfs->advise == NULL || first >= end)
        return;
    vfs->advise(vfs->context, file->base + (first << BLOCK_SHIFT), (end - first) << BLOCK_SHIFT,
                OMENDB_ADVISE_DONTNEED);
}

OMENDB_INTERNAL int blocks_check(struct block_file *blocks,
                                 void (*report)(void *context, const char *sentence), void *context)
{
    struct block_source *source = blocks->source;
    uint8_t *copy = NULL;
    int result = OMENDB_OK;
    if (source->memory != NULL) {
        copy = memory_alloc(source->storage->memory, BLOCK_BYTES);
        if (copy == NULL)
            return OMENDB_NOMEM;
    }
    for (uint64_t block = 0; block < blocks->size >> BLOCK_SHIFT && result == OMENDB_OK; block++) {
        const uint8_t *data = copy != NULL ? copy : blocks->base + (block << BLOCK_SHIFT);
        int code = OMENDB_OK;
        if (copy != NULL)
            code = storage_read(source->storage, &source->file, block << BLOCK_SHIFT, copy,
                                BLOCK_BYTES);
        if (code == OMENDB_OK)
            code = blocks_compare(source, block, data);
        if (code == OMENDB_CORRUPT)
            report(context, error_text());
        else if (code != OMENDB_OK)
            result = code;
    }
    memory_free(source->storage->memory, copy, BLOCK_BYTES);
    return result;
}

#undef BLOCKS_RUN

/* ==============================================================================================
 * segment.c
 * ============================================================================================== */

/* segment.c: writing and opening the containers of sections. format.h has the bytes.
 *
 * Invariant of the writer: bytes [0, written) are in the file, [block_start, size) are in the
 * buffer, and the checksums of all blocks below block_start are known; block_start is a multiple of
 * a block and at most `written`. So a flush in the middle of a block writes its first part early,
 * keeps it in the buffer, and later writes only the rest. The first error sticks: a file with a
 * hole never gets a footer.
 *
 * Invariant of an opened file: every part and section that it shows was bounded against the data,
 * sections are aligned, ascending and do not overlap, and a section has at least the bytes that its
 * part's numbers of rows and links ask for. Values inside sections (links, ids, rows) are bounded
 * where they are used.
 *
 * Rejected: a footer at the front (its size is known only at the end), and sections written in
 * parallel (one stream keeps checksums and allocation simple; the device is the limit). */

/* ==============================================================================================
 * segment.h
 * ============================================================================================== */

/* segment.h: immutable files of sections. A seg-<n> carries one or many parts (a pack); a part is
 * one segment of one collection: a fixed description and typed sections. An ovl-<n> is the same
 * container whose parts carry tombstones of segments.
 *
 * File, little-endian (format.h has the offsets):
 *   header    64 bytes: magic "OMENDBSG", format version, three feature masks, file number,
 *             24 bytes kept for a key id and a nonce prefix, CRC32C
 *   sections  each at a multiple of 64, zeros between
 *   footer    at a multiple of 16 KiB: part directory, section directory, CRC32C of each data
 *             block (begun with file and block number: swapped blocks are caught), counts
 *   trailer   the last 32 bytes: magic, footer length, footer CRC32C
 * The manifest names the size and the footer's CRC32C. */
#ifndef OMENDB_SEGMENT_H
#define OMENDB_SEGMENT_H

enum section_type {
    SECTION_VECTORS = 1,     /* rows * vector_stride */
    SECTION_LINKS = 2,       /* indexed_rows * 2M u32 */
    SECTION_LEVELS = 3,      /* indexed_rows u8 */
    SECTION_UPPER_INDEX = 4, /* indexed_rows u32 */
    SECTION_UPPER_LINKS = 5, /* upper_count * M u32 */
    SECTION_IDS = 6,         /* rows u64, in row order */
    SECTION_SORTED_IDS =
        7, /* rows u64 ascending (ties by row); absent when IDS is itself ascending */
    SECTION_SORTED_ROWS = 8,  /* rows u32: row of each of SORTED_IDS */
    SECTION_ID_FILTER = 9,    /* blocked Bloom filter, see idmap.h */
    SECTION_TOMBSTONES = 10,  /* in overlays: ascending u32 rows */
    SECTION_CODES = 11,       /* rows * codes_stride(dim), see codes.h; may be absent */
    SECTION_CALIBRATION = 12, /* the curve of recall by effort, see calibration.h; may be absent */
    SECTION_TYPES = 13
};

/* Part flags */
#define SEGMENT_IDS_ASCEND  1u
#define SEGMENT_CODES_EXACT 2u /* every code is its vector */

/* Described in the footer, 96 bytes a part. */
struct part_info {
    uint64_t collection;  /* id of the collection */
    uint64_t target_file; /* overlays: segment file and part that the tombstones belong to */
    uint32_t target_part;
    uint32_t flags;
    uint32_t rows;
    uint32_t indexed_rows; /* the first ones; the rest is searched exactly */
    uint32_t upper_count;
    uint32_t entry_row;
    uint32_t entry_level;
    uint32_t M;
    uint32_t vector_stride;
    uint32_t dim;
    uint32_t scalar;
    uint32_t metric;
    uint64_t smallest_id, largest_id;
    float reference_recall; /* sampled when the graph was last known to be as good as fresh; 0:
                               unknown */
    uint32_t reference_rows;
    float code_low, code_step; /* of CODES; step 0: there are none */
};

struct section_range {
    uint64_t offset;
    uint64_t length; /* 0: absent */
};

struct segment_writer;
/* expected_bytes: a guess for preallocation, 0: none. The file is invisible to readers until the
 * manifest names it. */
OMENDB_INTERNAL int segment_writer_create(struct storage *storage, enum storage_kind kind,
                                          uint64_t number, uint64_t expected_bytes,
                                          struct segment_writer **writer);
OMENDB_INTERNAL int
segment_writer_begin_part(struct segment_writer *writer); /* sections that follow belong to it */
OMENDB_INTERNAL int segment_writer_begin_section(struct segment_writer *writer,
                                                 enum section_type type);
OMENDB_INTERNAL int segment_writer_append(struct segment_writer *writer, const void *data,
                                          size_t size);
OMENDB_INTERNAL int segment_writer_end_part(struct segment_writer *writer,
                                            const struct part_info *info);
/* Everything appended so far is handed to the file and can be mapped: used by merges, which build
 * the graph over the vectors just written. Gives a read-only block file over [0, size written),
 * blocks taken as verified; closed by segment_flush_close, before anything more is appended (a vfs
 * may refuse to write a file while it is mapped). offset: of the current part's section `type`. */
OMENDB_INTERNAL int segment_writer_flush(struct segment_writer *writer, enum section_type type,
                                         struct block_file **view, uint64_t *offset);
OMENDB_INTERNAL void segment_flush_close(struct segment_writer *writer, struct block_file *view);
/* Writes the footer, syncs (not the directory), closes. */
OMENDB_INTERNAL int segment_writer_finish(struct segment_writer *writer, uint64_t *size,
                                          uint32_t *footer_crc);
/* Frees the writer; a file that was not finished is unlinked. NULL is OK. */
OMENDB_INTERNAL void segment_writer_destroy(struct segment_writer *writer);
OMENDB_INTERNAL uint32_t
segment_writer_parts(const struct segment_writer *writer); /* begun so far */

/* An opened file; reference-counted by the caller's own means. */
struct segment_file {
    struct block_file blocks;
    enum storage_kind kind;
    uint64_t number;
    uint32_t part_count;
    struct part_info *parts;
    struct section_range *sections; /* part_count * SECTION_TYPES, by type */
    struct storage *storage;
    size_t allocated; /* private */
};
/* Verifies size, header, trailer, footer checksum, that all sections lie inside and that those of
 * segments have the bytes that their part's counts ask for (values inside are for the caller to
 * bound); data blocks when touched. */
OMENDB_INTERNAL int segment_file_open(struct storage *storage, enum storage_kind kind,
                                      uint64_t number, uint64_t size, uint32_t footer_crc,
                                      struct segment_file **file);
OMENDB_INTERNAL void segment_file_close(struct segment_file *file); /* NULL is OK */

static inline struct section_range segment_section(const struct segment_file *file, uint32_t part,
                                                   enum section_type type)
{
    return file->sections[(size_t)part * SECTION_TYPES + (size_t)type];
}

/* Reads and verifies every block, touched before or not; `report` gets a sentence for each that is
 * bad. OMENDB_IOERR where one cannot be read, OMENDB_NOMEM. */
OMENDB_INTERNAL int segment_file_check(struct segment_file *file,
                                       void (*report)(void *context, const char *sentence),
                                       void *context);

#endif

/* segment.c, continued */

#define SEGMENT_BUFFER_BYTES ((size_t)1 << 20)

_Static_assert(((size_t)1 << 20) % BLOCK_BYTES == 0, "the buffer holds whole blocks");

static const char *segment_magic(enum storage_kind kind)
{
    return kind == STORAGE_OVERLAY ? FORMAT_MAGIC_OVERLAY : FORMAT_MAGIC_SEGMENT;
}

/* CRC32C of a footer of `length` bytes but for the checksum itself, which ends it. */
static uint32_t segment_footer_checksum(uint64_t number, const uint8_t *footer, size_t length)
{
    uint8_t place[8];
    format_put64(place, number);
    return checksum_crc32c(checksum_crc32c(0, place, sizeof place), footer, length - 4);
}

/* ------------------------------------------------------------------------------------------------
 * writing */

struct segment_writer_part {
    struct part_info info;
    struct section_range sections[SECTION_TYPES];
};

struct segment_writer {
    struct storage *storage;
    struct storage_file file;
    enum storage_kind kind;
    uint64_t number;
    uint64_t size;        /* appended so far */
    uint64_t written;     /* of it, in the file */
    uint64_t block_start; /* file offset of buffer[0] */
    uint8_t *buffer;
    uint32_t *checksums; /* of blocks below block_start */
    size_t checksum_capacity;
    struct segment_writer_part *parts;
    uint32_t part_count;
    size_t part_capacity;
    int part_open;
    enum section_type section; /* 0: none is open */
    uint32_t views;            /* given out by segment_writer_flush */
    int finished;
    int code; /* the first error, with its sentence */
    char text[ERROR_TEXT_BYTES];
};

static int segment_writer_fail(struct segment_writer *writer, int code)
{
    if (code != OMENDB_OK && writer->code == OMENDB_OK) {
        writer->code = code;
        snprintf(writer->text, sizeof writer->text, "%s", error_text());
    }
    return code;
}

/* The error that stuck, told again. */
static int segment_writer_state(const struct segment_writer *writer)
{
    return writer->code == OMENDB_OK ? OMENDB_OK : error_adopt(writer->code, writer->text);
}

static size_t segment_writer_buffered(const struct segment_writer *writer)
{
    return (size_t)(writer->size - writer->block_start);
}

/* Doubles an array; `at_least` elements fit afterwards. */
static int segment_writer_grow(struct memory *memory, void **array, size_t *capacity,
                               size_t at_least, size_t element)
{
    if (at_least <= *capacity)
        return OMENDB_OK;
    size_t larger = *capacity == 0 ? 16 : memory_multiply(*capacity, 2);
    if (larger < at_least)
        larger = at_least;
    void *moved = memory_resize(memory, *array, memory_multiply(*capacity, element),
                                memory_multiply(larger, element));
    if (moved == NULL)
        return OMENDB_NOMEM;
    *array = moved;
    *capacity = larger;
    return OMENDB_OK;
}

static int segment_writer_put_file(struct segment_writer *writer)
{
    const uint8_t *from = writer->buffer + (size_t)(writer->written - writer->block_start);
    int code = storage_write(writer->storage, &writer->file, writer->written, from,
                             (size_t)(writer->size - writer->written));
    if (code == OMENDB_OK)
        writer->written = writer->size;
    return code;
}

/* Writes what is buffered, takes the checksums of its whole blocks and keeps the rest of the last
 * one. */
static int segment_writer_drain(struct segment_writer *writer)
{
    size_t blocks = segment_writer_buffered(writer) / BLOCK_BYTES;
    uint64_t first = writer->block_start >> BLOCK_SHIFT;
    void *checksums = writer->checksums;
    int code = segment_writer_grow(writer->storage->memory, &checksums, &writer->checksum_capacity,
                                   (size_t)first + blocks, sizeof *writer->checksums);
    writer->checksums = checksums;
    if (code == OMENDB_OK)
        code = segment_writer_put_file(writer);
    if (code != OMENDB_OK)
        return code;
    for (size_t i = 0; i < blocks; i++)
        writer->checksums[first + i] =
            blocks_checksum(writer->number, first + i, writer->buffer + i * BLOCK_BYTES);
    memmove(writer->buffer, writer->buffer + blocks * BLOCK_BYTES,
            segment_writer_buffered(writer) - blocks * BLOCK_BYTES);
    writer->block_start += (uint64_t)blocks * BLOCK_BYTES;
    return OMENDB_OK;
}

/* data NULL: zeros. */
static int segment_writer_put(struct segment_writer *writer, const void *data, size_t size)
{
    const uint8_t *from = data;
    assert(writer->views == 0); /* a vfs may refuse to write a file that it has mapped */
    while (size > 0) {
        size_t used = segment_writer_buffered(writer), room = SEGMENT_BUFFER_BYTES - used;
        size_t piece = size < room ? size : room;
        if (from != NULL) {
            memcpy(writer->buffer + used, from, piece);
            from += piece;
        } else {
            memset(writer->buffer + used, 0, piece);
        }
        writer->size += piece;
        size -= piece;
        if (piece == room) {
            int code = segment_writer_drain(writer);
            if (code != OMENDB_OK)
                return code;
        }
    }
    return OMENDB_OK;
}

static int segment_writer_pad(struct segment_writer *writer, uint64_t align)
{
    return segment_writer_put(writer, NULL,
                              (size_t)(format_align(writer->size, align) - writer->size));
}

static int segment_writer_put_header(struct segment_writer *writer)
{
    uint8_t header[FORMAT_HEADER_BYTES];
    storage_header_begin(header, segment_magic(writer->kind));
    format_put64(header + FORMAT_SEGMENT_NUMBER, writer->number);
    storage_header_end(header);
    return segment_writer_put(writer, header, sizeof header);
}

OMENDB_INTERNAL int segment_writer_create(struct storage *storage, enum storage_kind kind,
                                          uint64_t number, uint64_t expected_bytes,
                                          struct segment_writer **writer)
{
    char name[STORAGE_NAME_BYTES];
    *writer = NULL;
    assert(kind == STORAGE_SEGMENT || kind == STORAGE_OVERLAY);
    struct segment_writer *made = memory_zalloc(storage->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->storage = storage;
    made->kind = kind;
    made->number = number;
    made->buffer = memory_alloc(storage->memory, SEGMENT_BUFFER_BYTES);
    storage_name(kind, number, name);
    int code = made->buffer == NULL ? OMENDB_NOMEM
                                    : storage_open(storage, name,
                                                   OMENDB_OPEN_READ | OMENDB_OPEN_WRITE |
                                                       OMENDB_OPEN_CREATE | OMENDB_OPEN_EXCLUSIVE,
                                                   &made->file);
    if (code == OMENDB_OK) {
        /* A failure is of no account: the guess may be too large, and the writes will tell. */
        if (expected_bytes > 0)
            (void)storage_allocate(storage, &made->file, expected_bytes);
        code = segment_writer_put_header(made);
    }
    if (code != OMENDB_OK) {
        segment_writer_fail(made, code);
        segment_writer_destroy(made);
        return code;
    }
    *writer = made;
    return OMENDB_OK;
}

static struct segment_writer_part *segment_writer_current(const struct segment_writer *writer)
{
    assert(writer->part_open);
    return &writer->parts[writer->part_count - 1];
}

OMENDB_INTERNAL int segment_writer_begin_part(struct segment_writer *writer)
{
    void *parts = writer->parts;
    int code = segment_writer_state(writer);
    if (code != OMENDB_OK)
        return code;
    assert(!writer->part_open && !writer->finished);
    code = segment_writer_grow(writer->storage->memory, &parts, &writer->part_capacity,
                               (size_t)writer->part_count + 1, sizeof *writer->parts);
    writer->parts = parts;
    if (code != OMENDB_OK)
        return segment_writer_fail(writer, code);
    memset(&writer->parts[writer->part_count], 0, sizeof *writer->parts);
    writer->part_count++;
    writer->part_open = 1;
    writer->section = (enum section_type)0;
    return OMENDB_OK;
}

OMENDB_INTERNAL int segment_writer_begin_section(struct segment_writer *writer,
                                                 enum section_type type)
{
    int code = segment_writer_state(writer);
    if (code != OMENDB_OK)
        return code;
    struct section_range *section = &segment_writer_current(writer)->sections[type];
    assert(section->offset == 0);
    code = segment_writer_fail(writer, segment_writer_pad(writer, FORMAT_SECTION_ALIGN));
    section->offset = writer->size;
    writer->section = type;
    return code;
}

OMENDB_INTERNAL int segment_writer_append(struct segment_writer *writer, const void *data,
                                          size_t size)
{
    int code = segment_writer_state(writer);
    if (code != OMENDB_OK)
        return code;
    assert(writer->section != 0);
    code = segment_writer_fail(writer, segment_writer_put(writer, data, size));
    if (code == OMENDB_OK)
        segment_writer_current(writer)->sections[writer->section].length += size;
    return code;
}

OMENDB_INTERNAL int segment_writer_end_part(struct segment_writer *writer,
                                            const struct part_info *info)
{
    int code = segment_writer_state(writer);
    if (code != OMENDB_OK)
        return code;
    segment_writer_current(writer)->info = *info;
    writer->part_open = 0;
    writer->section = (enum section_type)0;
    return OMENDB_OK;
}

OMENDB_INTERNAL int segment_writer_flush(struct segment_writer *writer, enum section_type type,
                                         struct block_file **view, uint64_t *offset)
{
    struct memory *memory = writer->storage->memory;
    *view = NULL;
    *offset = 0;
    int code = segment_writer_state(writer);
    if (code == OMENDB_OK)
        code = segment_writer_fail(writer, segment_writer_drain(writer));
    if (code != OMENDB_OK)
        return code;
    struct block_file *made = memory_alloc(memory, sizeof *made);
    if (made == NULL)
        return segment_writer_fail(writer, OMENDB_NOMEM);
    code = blocks_open(writer->storage, &writer->file, writer->number, writer->size, NULL, made);
    if (code != OMENDB_OK) {
        memory_free(memory, made, sizeof *made);
        return segment_writer_fail(writer, code);
    }
    *offset = segment_writer_current(writer)->sections[type].offset;
    *view = made;
    writer->views++;
    return OMENDB_OK;
}

OMENDB_INTERNAL void segment_flush_close(struct segment_writer *writer, struct block_file *view)
{
    if (view == NULL)
        return;
    blocks_close(view);
    memory_free(writer->storage->memory, view, sizeof *view);
    writer->views--;
}

static void segment_encode_part(uint8_t *at, const struct part_info *info)
{
    memset(at, 0, FORMAT_PART_BYTES);
    format_put64(at + FORMAT_PART_COLLECTION, info->collection);
    format_put64(at + FORMAT_PART_TARGET_FILE, info->target_file);
    format_put64(at + FORMAT_PART_SMALLEST_ID, info->smallest_id);
    format_put64(at + FORMAT_PART_LARGEST_ID, info->largest_id);
    format_put32(at + FORMAT_PART_TARGET_PART, info->target_part);
    format_put32(at + FORMAT_PART_FLAGS, info->flags);
    format_put32(at + FORMAT_PART_ROWS, info->rows);
    format_put32(at + FORMAT_PART_INDEXED_ROWS, info->indexed_rows);
    format_put32(at + FORMAT_PART_UPPER_COUNT, info->upper_count);
    format_put32(at + FORMAT_PART_ENTRY_ROW, info->entry_row);
    format_put32(at + FORMAT_PART_ENTRY_LEVEL, info->entry_level);
    format_put32(at + FORMAT_PART_M, info->M);
    format_put32(at + FORMAT_PART_VECTOR_STRIDE, info->vector_stride);
    format_put32(at + FORMAT_PART_DIM, info->dim);
    format_put32(at + FORMAT_PART_SCALAR, info->scalar);
    format_put32(at + FORMAT_PART_METRIC, info->metric);
    format_put_float(at + FORMAT_PART_REFERENCE_RECALL, info->reference_recall);
    format_put32(at + FORMAT_PART_REFERENCE_ROWS, info->reference_rows);
    format_put_float(at + FORMAT_PART_CODE_LOW, info->code_low);
    format_put_float(at + FORMAT_PART_CODE_STEP, info->code_step);
}

/* Sections of one part in the order of their offsets, which is the order in which they were begun;
 * empty ones are left out. */
static size_t segment_order_sections(const struct segment_writer_part *part,
                                     size_t order[SECTION_TYPES])
{
    size_t count = 0;
    for (size_t type = 0; type < SECTION_TYPES; type++) {
        if (part->sections[type].length == 0)
            continue;
        size_t place = count++;
        while (place > 0 && part->sections[order[place - 1]].offset > part->sections[type].offset) {
            order[place] = order[place - 1];
            place--;
        }
        order[place] = type;
    }
    return count;
}

static uint32_t segment_count_sections(const struct segment_writer *writer)
{
    uint32_t count = 0;
    for (uint32_t part = 0; part < writer->part_count; part++) {
        for (size_t type = 0; type < SECTION_TYPES; type++)
            count += writer->parts[part].sections[type].length != 0;
    }
    return count;
}

static uint8_t *segment_encode_sections(uint8_t *at, uint32_t number,
                                        const struct segment_writer_part *part)
{
    size_t order[SECTION_TYPES], count = segment_order_sections(part, order);
    for (size_t i = 0; i < count; i++) {
        format_put32(at + FORMAT_SECTION_PART, number);
        format_put32(at + FORMAT_SECTION_TYPE, (uint32_t)order[i]);
        format_put64(at + FORMAT_SECTION_OFFSET, part->sections[order[i]].offset);
        format_put64(at + FORMAT_SECTION_LENGTH, part->sections[order[i]].length);
        at += FORMAT_SECTION_BYTES;
    }
    return at;
}

static void segment_encode_footer(const struct segment_writer *writer, uint8_t *footer,
                                  size_t length, uint32_t section_count, uint32_t *footer_crc)
{
    uint8_t *at = footer, *trailer = footer + length - FORMAT_TRAILER_BYTES;
    for (uint32_t part = 0; part < writer->part_count; part++, at += FORMAT_PART_BYTES)
        segment_encode_part(at, &writer->parts[part].info);
    for (uint32_t part = 0; part < writer->part_count; part++)
        at = segment_encode_sections(at, part, &writer->parts[part]);
    for (uint64_t block = 0; block < writer->size >> BLOCK_SHIFT; block++, at += 4)
        format_put32(at, writer->checksums[block]);
    assert(at == trailer);
    memset(trailer, 0, FORMAT_TRAILER_BYTES);
    memcpy(trailer, FORMAT_MAGIC_FOOTER, FORMAT_MAGIC_BYTES);
    format_put64(trailer + FORMAT_TRAILER_LENGTH, length);
    format_put32(trailer + FORMAT_TRAILER_PARTS, writer->part_count);
    format_put32(trailer + FORMAT_TRAILER_SECTIONS, section_count);
    *footer_crc = segment_footer_checksum(writer->number, footer, length);
    format_put32(trailer + FORMAT_TRAILER_CRC, *footer_crc);
}

/* Writes the footer behind the data and cuts the file there. */
static int segment_write_footer(struct segment_writer *writer, uint64_t *size, uint32_t *footer_crc)
{
    uint32_t section_count = segment_count_sections(writer);
    size_t length = memory_multiply(writer->part_count, FORMAT_PART_BYTES);
    length = memory_add(length, memory_multiply(section_count, FORMAT_SECTION_BYTES));
    length = memory_add(length, memory_multiply((size_t)(writer->size >> BLOCK_SHIFT), 4));
    length = memory_add(length, FORMAT_TRAILER_BYTES);
    uint8_t *footer = memory_alloc(writer->storage->memory, length);
    if (footer == NULL)
        return OMENDB_NOMEM;
    segment_encode_footer(writer, footer, length, section_count, footer_crc);
    int code = storage_write(writer->storage, &writer->file, writer->size, footer, length);
    memory_free(writer->storage->memory, footer, length);
    if (code == OMENDB_OK)
        code = storage_truncate(writer->storage, &writer->file,
                                writer->size + length); /* what was reserved beyond */
    *size = writer->size + length;
    return code;
}

OMENDB_INTERNAL int segment_writer_finish(struct segment_writer *writer, uint64_t *size,
                                          uint32_t *footer_crc)
{
    int code = segment_writer_state(writer);
    if (code != OMENDB_OK)
        return code;
    assert(!writer->part_open && !writer->finished);
    code = segment_writer_pad(writer, BLOCK_BYTES);
    if (code == OMENDB_OK)
        code = segment_writer_drain(writer);
    if (code == OMENDB_OK)
        code = segment_write_footer(writer, size, footer_crc);
    if (code == OMENDB_OK)
        code = storage_sync(writer->storage, &writer->file);
    if (code == OMENDB_OK)
        code = storage_close(writer->storage, &writer->file);
    writer->finished = code == OMENDB_OK;
    return segment_writer_fail(writer, code);
}

OMENDB_INTERNAL void segment_writer_destroy(struct segment_writer *writer)
{
    if (writer == NULL)
        return;
    assert(writer->views == 0);
    struct memory *memory = writer->storage->memory;
    /* An open file was created here and not finished. Its failure to go is of no account: no
     * manifest names it. */
    if (!writer->finished && writer->file.handle != NULL) {
        /* Whoever failed before has the last word, in this writer or elsewhere. */
        char text[ERROR_TEXT_BYTES];
        memcpy(text, error_text(), strlen(error_text()) + 1);
        storage_close(writer->storage, &writer->file);
        storage_unlink(writer->storage, writer->file.name);
        error_adopt(writer->code, text);
    }
    memory_free(memory, writer->buffer, SEGMENT_BUFFER_BYTES);
    memory_free(memory, writer->checksums, writer->checksum_capacity * sizeof *writer->checksums);
    memory_free(memory, writer->parts, writer->part_capacity * sizeof *writer->parts);
    memory_free(memory, writer, sizeof *writer);
}

OMENDB_INTERNAL uint32_t segment_writer_parts(const struct segment_writer *writer)
{
    return writer->part_count;
}

/* ------------------------------------------------------------------------------------------------
 * opening */

/* What the trailer tells, bounded. */
struct segment_footer {
    uint8_t *bytes;
    size_t length;
    uint32_t part_count, section_count;
    uint64_t block_count;
};

static int segment_corrupt(const char *name, uint64_t offset, const char *why)
{
    return error_set(OMENDB_CORRUPT,
                     "%s: footer (offset %" PRIu64 "): %s; restore from a backup, or salvage", name,
                     offset, why);
}

static int segment_check_header(struct storage *storage, struct storage_file *file,
                                enum storage_kind kind, uint64_t number)
{
    uint8_t header[FORMAT_HEADER_BYTES];
    int code = storage_read(storage, file, 0, header, sizeof header);
    if (code == OMENDB_OK)
        code = storage_header_check(file->name, header, segment_magic(kind));
    if (code == OMENDB_OK && format_get64(header + FORMAT_SEGMENT_NUMBER) != number)
        code = error_set(OMENDB_CORRUPT,
                         "%s: its header says number %" PRIu64 ": it is another file, renamed",
                         file->name, format_get64(header + FORMAT_SEGMENT_NUMBER));
    return code;
}

/* Bounds the trailer's numbers against the file; the products fit, as counts have 32 bits and sizes
 * are below 2^63. */
static int segment_parse_trailer(const char *name, const uint8_t *trailer, uint64_t size,
                                 struct segment_footer *footer)
{
    uint64_t length = format_get64(trailer + FORMAT_TRAILER_LENGTH), data = size - length;
    footer->part_count = format_get32(trailer + FORMAT_TRAILER_PARTS);
    footer->section_count = format_get32(trailer + FORMAT_TRAILER_SECTIONS);
    if (memcmp(trailer, FORMAT_MAGIC_FOOTER, FORMAT_MAGIC_BYTES) != 0)
        return segment_corrupt(name, size - FORMAT_TRAILER_BYTES,
                               "there is none; the file was cut or never finished");
    if (length < FORMAT_TRAILER_BYTES || length >= size || length > SIZE_MAX ||
        data % BLOCK_BYTES != 0)
        return segment_corrupt(name, size - FORMAT_TRAILER_BYTES,
                               "its length does not fit the file");
    footer->length = (size_t)length;
    footer->block_count = data >> BLOCK_SHIFT;
    uint64_t fixed = (uint64_t)footer->part_count * FORMAT_PART_BYTES +
                     (uint64_t)footer->section_count * FORMAT_SECTION_BYTES + FORMAT_TRAILER_BYTES;
    if (fixed > length || (length - fixed) % 4 != 0 || (length - fixed) / 4 != footer->block_count)
        return segment_corrupt(name, size - FORMAT_TRAILER_BYTES,
                               "its counts do not fit its length");
    return OMENDB_OK;
}

static int segment_read_footer(struct storage *storage, struct storage_file *file, uint64_t number,
                               uint64_t size, uint32_t footer_crc, struct segment_footer *footer)
{
    uint8_t trailer[FORMAT_TRAILER_BYTES];
    uint64_t present;
    int code = storage_size(storage, file, &present);
    if (code != OMENDB_OK)
        return code;
    if (present != size || size < BLOCK_BYTES + FORMAT_TRAILER_BYTES || size > INT64_MAX)
        return error_set(OMENDB_CORRUPT,
                         "%s: has %" PRIu64 " bytes, expected %" PRIu64
                         "; restore from a backup, or salvage",
                         file->name, present, size);
    code = storage_read(storage, file, size - sizeof trailer, trailer, sizeof trailer);
    if (code == OMENDB_OK)
        code = segment_parse_trailer(file->name, trailer, size, footer);
    if (code != OMENDB_OK)
        return code;
    footer->bytes = memory_alloc(storage->memory, footer->length);
    if (footer->bytes == NULL)
        return OMENDB_NOMEM;
    code = storage_read(storage, file, size - footer->length, footer->bytes, footer->length);
    if (code != OMENDB_OK)
        return code;
    /* The trailer again, as this copy is the one that the checksum is about. */
    code = segment_parse_trailer(file->name, footer->bytes + footer->length - sizeof trailer, size,
                                 footer);
    uint32_t crc = segment_footer_checksum(number, footer->bytes, footer->length);
    uint32_t stored = format_get32(footer->bytes + footer->length - 4);
    if (code == OMENDB_OK && (crc != stored || crc != footer_crc))
        code = error_set(OMENDB_CORRUPT,
                         "%s: footer (offset %" PRIu64 "): checksum %08" PRIx32
                         ", expected %08" PRIx32 "; restore from a backup, or salvage",
                         file->name, size - footer->length, crc, footer_crc);
    return code;
}

static void segment_decode_part(const uint8_t *at, struct part_info *info)
{
    info->collection = format_get64(at + FORMAT_PART_COLLECTION);
    info->target_file = format_get64(at + FORMAT_PART_TARGET_FILE);
    info->smallest_id = format_get64(at + FORMAT_PART_SMALLEST_ID);
    info->largest_id = format_get64(at + FORMAT_PART_LARGEST_ID);
    info->target_part = format_get32(at + FORMAT_PART_TARGET_PART);
    info->flags = format_get32(at + FORMAT_PART_FLAGS);
    info->rows = format_get32(at + FORMAT_PART_ROWS);
    info->indexed_rows = format_get32(at + FORMAT_PART_INDEXED_ROWS);
    info->upper_count = format_get32(at + FORMAT_PART_UPPER_COUNT);
    info->entry_row = format_get32(at + FORMAT_PART_ENTRY_ROW);
    info->entry_level = format_get32(at + FORMAT_PART_ENTRY_LEVEL);
    info->M = format_get32(at + FORMAT_PART_M);
    info->vector_stride = format_get32(at + FORMAT_PART_VECTOR_STRIDE);
    info->dim = format_get32(at + FORMAT_PART_DIM);
    info->scalar = format_get32(at + FORMAT_PART_SCALAR);
    info->metric = format_get32(at + FORMAT_PART_METRIC);
    info->reference_recall = format_get_float(at + FORMAT_PART_REFERENCE_RECALL);
    info->reference_rows = format_get32(at + FORMAT_PART_REFERENCE_ROWS);
    info->code_low = format_get_float(at + FORMAT_PART_CODE_LOW);
    info->code_step = format_get_float(at + FORMAT_PART_CODE_STEP);
}

/* Bytes that a section of this type needs by its part's counts; rows * 2M * 4 may exceed 64 bits,
 * so M is bounded first. */
static uint64_t segment_section_needs(const struct part_info *info, size_t type)
{
    uint64_t rows = info->rows, linked = info->indexed_rows;
    switch (type) {
    case SECTION_VECTORS:
        return rows * info->vector_stride;
    case SECTION_LINKS:
        return linked * 2 * info->M * sizeof(uint32_t);
    case SECTION_CODES:
        return rows * codes_stride(info->dim);
    case SECTION_LEVELS:
        return linked;
    case SECTION_UPPER_INDEX:
        return linked * sizeof(uint32_t);
    case SECTION_SORTED_ROWS:
        return rows * sizeof(uint32_t);
    case SECTION_UPPER_LINKS:
        return (uint64_t)info->upper_count * info->M * sizeof(uint32_t);
    case SECTION_IDS:
    case SECTION_SORTED_IDS:
        return rows * sizeof(uint64_t);
    case SECTION_CALIBRATION:
        return FORMAT_CALIBRATION_BYTES + FORMAT_CURVE_BYTES;
    default:
        return 0;
    }
}

#define SEGMENT_LARGEST_M 65535

static int segment_check_parts(const struct segment_file *file, const char *name, uint64_t offset)
{
    for (uint32_t part = 0; part < file->part_count; part++, offset += FORMAT_PART_BYTES) {
        const struct part_info *info = &file->parts[part];
        const struct section_range *sections = file->sections + (size_t)part * SECTION_TYPES;
        if (file->kind == STORAGE_OVERLAY) {
            if (sections[SECTION_TOMBSTONES].length % sizeof(uint32_t) != 0)
                return segment_corrupt(name, offset, "tombstones that are no whole rows");
            continue;
        }
        if (info->M > SEGMENT_LARGEST_M || info->indexed_rows > info->rows)
            return segment_corrupt(name, offset, "a part with impossible counts");
        for (size_t type = 0; type < SECTION_TYPES; type++) {
            if (sections[type].length != 0 &&
                sections[type].length < segment_section_needs(info, type))
                return segment_corrupt(name, offset, "a section is too short for its rows");
        }
    }
    return OMENDB_OK;
}

/* Sections ascend by part, and by offset without overlap; a type occurs once a part. */
static int segment_decode_sections(struct segment_file *file, const char *name,
                                   const struct segment_footer *footer, uint64_t offset)
{
    const uint8_t *at = footer->bytes + (size_t)footer->part_count * FORMAT_PART_BYTES;
    uint64_t end = FORMAT_HEADER_BYTES, data = footer->block_count << BLOCK_SHIFT;
    uint32_t last_part = 0;
    offset += (uint64_t)footer->part_count * FORMAT_PART_BYTES;
    for (uint32_t i = 0; i < footer->section_count;
         i++, at += FORMAT_SECTION_BYTES, offset += FORMAT_SECTION_BYTES) {
        uint32_t part = format_get32(at + FORMAT_SECTION_PART),
                 type = format_get32(at + FORMAT_SECTION_TYPE);
        struct section_range range = {format_get64(at + FORMAT_SECTION_OFFSET),
                                      format_get64(at + FORMAT_SECTION_LENGTH)};
        if (part >= footer->part_count || part < last_part || type == 0 || type >= SECTION_TYPES)
            return segment_corrupt(name, offset, "a section of no part, or of an unknown type");
        if (range.offset % FORMAT_SECTION_ALIGN != 0 || range.offset < end || range.offset > data ||
            range.length == 0 || range.length > data - range.offset)
            return segment_corrupt(name, offset,
                                   "a section lies outside the data, or over another one");
        struct section_range *section = &file->sections[(size_t)part * SECTION_TYPES + type];
        if (section->length != 0)
            return segment_corrupt(name, offset, "a part has two sections of one type");
        *section = range;
        last_part = part;
        end = range.offset + range.length;
    }
    return OMENDB_OK;
}

/* One allocation: the struct, its parts, sections and checksums, each a multiple of 8 bytes. */
static struct segment_file *segment_file_alloc(struct storage *storage, enum storage_kind kind,
                                               uint64_t number, const struct segment_footer *footer,
                                               uint32_t **checksums)
{
    size_t parts = memory_multiply(footer->part_count, sizeof(struct part_info));
    size_t sections = memory_multiply(memory_multiply(footer->part_count, SECTION_TYPES),
                                      sizeof(struct section_range));
    size_t table = memory_multiply((size_t)footer->block_count, sizeof **checksums);
    size_t total =
        memory_add(memory_add(sizeof(struct segment_file), parts), memory_add(sections, table));
    struct segment_file *file = memory_zalloc(storage->memory, total);
    if (file == NULL)
        return NULL;
    uint8_t *at = (uint8_t *)(file + 1);
    file->storage = storage;
    file->kind = kind;
    file->number = number;
    file->part_count = footer->part_count;
    file->allocated = total;
    file->parts = (void *)at;
    file->sections = (void *)(at + parts);
    *checksums = (void *)(at + parts + sections);
    return file;
}

_Static_assert(sizeof(struct segment_file) % 8 == 0 && sizeof(struct part_info) % 8 == 0 &&
                   sizeof(struct section_range) % 8 == 0,
               "what shares an allocation stays aligned");

/* The opened file from a footer whose checksum was right. */
static int segment_file_make(struct storage *storage, struct storage_file *handle,
                             enum storage_kind kind, uint64_t number,
                             const struct segment_footer *footer, struct segment_file **file)
{
    uint32_t *checksums;
    uint64_t data = footer->block_count << BLOCK_SHIFT;
    struct segment_file *made = segment_file_alloc(storage, kind, number, footer, &checksums);
    if (made == NULL)
        return OMENDB_NOMEM;
    for (uint32_t part = 0; part < footer->part_count; part++)
        segment_decode_part(footer->bytes + (size_t)part * FORMAT_PART_BYTES, &made->parts[part]);
    memcpy(checksums,
           footer->bytes + footer->length - FORMAT_TRAILER_BYTES -
               (size_t)footer->block_count * sizeof *checksums,
           (size_t)footer->block_count * sizeof *checksums);
    int code = segment_decode_sections(made, handle->name, footer, data);
    if (code == OMENDB_OK)
        code = segment_check_parts(made, handle->name, data);
    if (code == OMENDB_OK)
        code = blocks_open(storage, handle, number, data, checksums, &made->blocks);
    if (code != OMENDB_OK) {
        segment_file_close(made);
        return code;
    }
    *file = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL int segment_file_open(struct storage *storage, enum storage_kind kind,
                                      uint64_t number, uint64_t size, uint32_t footer_crc,
                                      struct segment_file **file)
{
    struct storage_file handle;
    struct segment_footer footer = {NULL, 0, 0, 0, 0};
    char name[STORAGE_NAME_BYTES];
    *file = NULL;
    storage_name(kind, number, name);
    int code = storage_open(storage, name, OMENDB_OPEN_READ, &handle);
    if (code == OMENDB_NOTFOUND)
        return error_set(OMENDB_CORRUPT, "%s is missing; restore from a backup", name);
    if (code != OMENDB_OK)
        return code;
    code = segment_read_footer(storage, &handle, number, size, footer_crc, &footer);
    if (code == OMENDB_OK)
        code = segment_check_header(storage, &handle, kind, number);
    if (code == OMENDB_OK)
        code = segment_file_make(storage, &handle, kind, number, &footer, file);
    memory_free(storage->memory, footer.bytes, footer.length);
    storage_close(storage, &handle); /* nothing was written: a failure cannot lose anything */
    return code;
}

OMENDB_INTERNAL void segment_file_close(struct segment_file *file)
{
    if (file == NULL)
        return;
    struct memory *memory = file->storage->memory;
    blocks_close(&file->blocks);
    memory_free(memory, file, file->allocated);
}

OMENDB_INTERNAL int segment_file_check(struct segment_file *file,
                                       void (*report)(void *context, const char *sentence),
                                       void *context)
{
    return blocks_check(&file->blocks, report, context);
}

#undef SEGMENT_BUFFER_BYTES
#undef SEGMENT_LARGEST_M

/* ==============================================================================================
 * wal.c
 * ============================================================================================== */

/* wal.c: appending to the log and reading it back. wal.h tells the rules, format.h the bytes.
 *
 * Invariant of the writer: bytes from `length` to the end of the file are zeros, and `length` is
 * the end of the last record that was appended in full. A failed append truncates the file to
 * `length`, which also makes the zeros true again, and reserves the space anew; where even that
 * fails the log is poisoned, since a later append would leave a record behind garbage.
 *
 * Invariant of the reader: what is delivered is a prefix of what was appended. The proof that the
 * prefix is long enough is `durable_upto`: a record that says so was appended after everything
 * below was on the device, so a record that is bad below it was good once, and is damage. A record
 * that nobody vouches for may be torn. The final length of a log that has a successor vouches for
 * all of it.
 *
 * The search behind a bad record looks at each multiple of 8 for the log id, which is random and so
 * not met by chance, and then for a matching checksum. Copies of records in somebody's payload do
 * no harm: they say a `durable_upto` below the record that carries them. Work is bounded: genuine
 * records do not overlap, so what candidates claim together cannot exceed the rest of the file.
 *
 * Rejected: mapping the log (a writer in another process cuts it under the reader's feet), and a
 * checksum chained from record to record (the search could not verify a record behind a damaged
 * one). */

/* ==============================================================================================
 * wal.h
 * ============================================================================================== */

/* wal.h: the log. One file at a time grows; commits are numbered by the caller, each is one record.
 *
 * wal-<n>, little-endian. Header of 64 bytes:
 *   magic "OMENDBWL", u32 format version, 3 x u32 feature masks (ignore, read-only, refuse),
 *   u64 log id (random; names this file in its records), u64 first sequence,
 *   u64 predecessor's number (0: none), u64 predecessor's final length, u32 CRC32C of the above.
 * Then records, each at a multiple of 8:
 *   u32 payload length, u32 CRC32C of all the record's other bytes, u64 sequence, u64 log id,
 *   u64 durable_upto, u32 type, u32 zero, payload, zeros up to a multiple of 8.
 * durable_upto is the offset that was known to be on the device when the record was appended. The
 * file is preallocated in steps; what follows the last record is zeros.
 *
 * Reading: records with consecutive sequences from the header's first on. At the first one that is
 * not valid (offset X) the rest is searched for valid records of this log id: if one says that
 * durable_upto > X, or a known final length is > X, it is OMENDB_CORRUPT; else it is the end.
 * A failed or short append is cut before the next. Nothing is appended to a log that was read:
 * recovery begins a new one. */
#ifndef OMENDB_WAL_H
#define OMENDB_WAL_H

#define WAL_HEADER_BYTES   64
#define WAL_LENGTH_UNKNOWN UINT64_MAX

enum wal_type { WAL_COMMIT = 1 };

struct wal {
    struct storage *storage;
    struct storage_file file;
    uint64_t number;
    uint64_t log_id;
    uint64_t next_sequence;
    uint64_t length;    /* end of the last record; guarded by the caller's commit mutex */
    uint64_t allocated; /* of the file */
    _Atomic uint64_t durable_upto; /* set by wal_set_durable */
    _Atomic uint32_t poisoned;     /* a sync or a cut failed: nothing more may be appended */
    uint8_t *buffer;               /* gathers the small pieces of a record */
};

/* Creates the file with room for `allocate` bytes, header written; syncs file and directory when
 * `sync_now`. What the predecessor has up to `predecessor_length` must be synced before this is
 * called: readers take that length for durable. On failure the file is gone for good, so that the
 * predecessor may go on growing; OMENDB_POISONED if that could not be made sure. OMENDB_EXISTS: a
 * file of that number is there; it is left alone. wal_close is due only after success. */
OMENDB_INTERNAL int wal_create(struct storage *storage, uint64_t number, uint64_t first_sequence,
                               uint64_t predecessor, uint64_t predecessor_length, uint64_t allocate,
                               int sync_now, struct wal *wal);

struct wal_piece {
    const void *data;
    size_t size;
};

/* Appends one record made of `pieces`; one thread at a time. On failure nothing was appended (what
 * was written is cut); OMENDB_FULL where the disk is, OMENDB_TOOBIG over UINT32_MAX bytes. If even
 * the cut fails: OMENDB_POISONED. */
OMENDB_INTERNAL int wal_append(struct wal *wal, uint64_t sequence, uint32_t type,
                               const struct wal_piece *pieces, size_t piece_count);

/* Syncs the file. May run beside wal_append. The caller then calls wal_set_durable with the length
 * it saw before. */
OMENDB_INTERNAL int wal_sync(struct wal *wal);
OMENDB_INTERNAL void wal_set_durable(struct wal *wal, uint64_t length);
OMENDB_INTERNAL int wal_close(struct wal *wal); /* no sync */

struct wal_record {
    uint64_t sequence;
    uint64_t offset;
    uint32_t type;
    uint32_t size;
    const uint8_t *payload; /* valid during the call; 8-byte aligned */
};

struct wal_replay {
    uint64_t number;         /* in: which file */
    uint64_t final_length;   /* in: known from the manifest or the successor's header, or
                                WAL_LENGTH_UNKNOWN */
    uint64_t first_sequence; /* in: expected first sequence, 0: whatever the header says */
    int live_reader; /* in: 1: a writer may be appending (read-only opener): records are delivered
                      * up to what is known durable; an incomplete frame is the end */
    int may_sync;    /* in, with live_reader: 1: the records that are there are made durable by a
                      * sync of the reader's own, where the system allows it */
    uint64_t start_offset; /* in: 0, or go on from here (refresh) */
    /* out */
    uint64_t end; /* offset after the last delivered record */
    uint64_t next_sequence;
    uint64_t predecessor, predecessor_length, log_id;
    int torn; /* bytes other than zeros were cut after `end` */
};

/* Delivers the valid records in order. `deliver` may return an error, which ends the replay.
 * OMENDB_NOTFOUND: no such file, or its creation was not completed: it has no valid header and
 * nothing in it says that anything was durable (for the log that a manifest names, which was synced
 * before, that is corruption). OMENDB_CORRUPT, OMENDB_FORMAT, OMENDB_IOERR, OMENDB_NOMEM. */
OMENDB_INTERNAL int wal_read(struct storage *storage, struct wal_replay *replay,
                             int (*deliver)(void *context, const struct wal_record *record),
                             void *context);

#endif

/* wal.c, continued */

_Static_assert(WAL_HEADER_BYTES == FORMAT_HEADER_BYTES, "wal.h and format.h tell the same length");

#define WAL_BUFFER_BYTES ((size_t)64 << 10)  /* gathers a record's pieces for one write */
#define WAL_WINDOW_BYTES ((size_t)1 << 20)   /* read at a time */
#define WAL_STEP_BYTES   (UINT64_C(4) << 20) /* reserved at a time, at most */
#define WAL_PAGE_BYTES   4096

/* ------------------------------------------------------------------------------------------------
 * writing */

static uint64_t wal_record_bytes(uint64_t payload)
{
    return FORMAT_RECORD_BYTES + format_align(payload, FORMAT_RECORD_ALIGN);
}

/* A log that could not be completed must not come back after a crash: as the successor of a log
 * that goes on it would give that one a final length that is too small. */
static int wal_discard(struct wal *wal, int code)
{
    struct storage *storage = wal->storage;
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof text, "%s", error_text());
    wal_close(wal);
    if (storage_unlink(storage, wal->file.name) != OMENDB_OK ||
        storage_sync_directory(storage) != OMENDB_OK)
        return error_set(OMENDB_POISONED,
                         "%.400s; then it could not be deleted: close and reopen the database",
                         text);
    return error_adopt(code, text);
}

static int wal_write_header(struct wal *wal, uint64_t predecessor, uint64_t predecessor_length)
{
    uint8_t header[FORMAT_HEADER_BYTES];
    storage_header_begin(header, FORMAT_MAGIC_WAL);
    format_put64(header + FORMAT_WAL_LOG_ID, wal->log_id);
    format_put64(header + FORMAT_WAL_FIRST_SEQUENCE, wal->next_sequence);
    format_put64(header + FORMAT_WAL_PREDECESSOR, predecessor);
    format_put64(header + FORMAT_WAL_PREDECESSOR_LENGTH, predecessor_length);
    storage_header_end(header);
    return storage_write(wal->storage, &wal->file, 0, header, sizeof header);
}

/* Reserving is a kindness to later appends; without it the write decides. */
static void wal_reserve(struct wal *wal, uint64_t size)
{
    if (size > wal->allocated && storage_allocate(wal->storage, &wal->file, size) == OMENDB_OK)
        wal->allocated = size;
}

OMENDB_INTERNAL int wal_create(struct storage *storage, uint64_t number, uint64_t first_sequence,
                               uint64_t predecessor, uint64_t predecessor_length, uint64_t allocate,
                               int sync_now, struct wal *wal)
{
    char name[STORAGE_NAME_BYTES];
    memset(wal, 0, sizeof *wal);
    wal->storage = storage;
    wal->number = number;
    wal->next_sequence = first_sequence;
    wal->length = FORMAT_HEADER_BYTES;
    do
        platform_random(&wal->log_id, sizeof wal->log_id);
    while (wal->log_id == 0);
    wal->buffer = memory_alloc(storage->memory, WAL_BUFFER_BYTES);
    if (wal->buffer == NULL)
        return OMENDB_NOMEM;
    storage_name(STORAGE_WAL, number, name);
    int code = storage_open(storage, name,
                            OMENDB_OPEN_READ | OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE |
                                OMENDB_OPEN_EXCLUSIVE,
                            &wal->file);
    if (code != OMENDB_OK) {
        wal_close(wal);
        return code;
    }
    wal_reserve(wal, format_align(allocate, WAL_PAGE_BYTES));
    code = wal_write_header(wal, predecessor, predecessor_length);
    if (code == OMENDB_OK && sync_now)
        code = storage_sync(storage, &wal->file);
    if (code == OMENDB_OK && sync_now)
        code = storage_sync_directory(storage);
    if (code != OMENDB_OK)
        return wal_discard(wal, code);
    if (wal->allocated < wal->length)
        wal->allocated = wal->length;
    wal_set_durable(wal, sync_now ? wal->length : 0);
    return OMENDB_OK;
}

/* The pieces of one record on their way to the file: small ones are gathered, large ones written
 * where they are. */
struct wal_gather {
    struct wal *wal;
    uint64_t offset; /* of the file: where the buffer goes */
    size_t used;     /* of the buffer */
};

static int wal_gather_flush(struct wal_gather *gather)
{
    struct wal *wal = gather->wal;
    int code = storage_write(wal->storage, &wal->file, gather->offset, wal->buffer, gather->used);
    gather->offset += gather->used;
    gather->used = 0;
    return code;
}

static int wal_gather_put(struct wal_gather *gather, const void *data, size_t size)
{
    struct wal *wal = gather->wal;
    if (size == 0)
        return OMENDB_OK;
    if (size > WAL_BUFFER_BYTES - gather->used) {
        int code = wal_gather_flush(gather);
        if (code != OMENDB_OK)
            return code;
    }
    if (size >= WAL_BUFFER_BYTES) {
        int code = storage_write(wal->storage, &wal->file, gather->offset, data, size);
        gather->offset += size;
        return code;
    }
    memcpy(wal->buffer + gather->used, data, size);
    gather->used += size;
    return OMENDB_OK;
}

static const uint8_t wal_zeros[FORMAT_RECORD_ALIGN];

/* Fills the record's header; its checksum goes over the pieces and the padding too. */
static void wal_record_header(const struct wal *wal, uint64_t sequence, uint32_t type,
                              const struct wal_piece *pieces, size_t piece_count, uint64_t payload,
                              uint8_t *header)
{
    memset(header, 0, FORMAT_RECORD_BYTES);
    format_put32(header + FORMAT_RECORD_LENGTH, (uint32_t)payload);
    format_put64(header + FORMAT_RECORD_SEQUENCE, sequence);
    format_put64(header + FORMAT_RECORD_LOG_ID, wal->log_id);
    format_put64(header + FORMAT_RECORD_DURABLE,
                 atomic_load_explicit(&wal->durable_upto, memory_order_acquire));
    format_put32(header + FORMAT_RECORD_TYPE, type);
    uint32_t crc = checksum_crc32c(0, header, FORMAT_RECORD_CRC);
    crc = checksum_crc32c(crc, header + FORMAT_RECORD_SEQUENCE,
                          FORMAT_RECORD_BYTES - FORMAT_RECORD_SEQUENCE);
    for (size_t i = 0; i < piece_count; i++)
        crc = checksum_crc32c(crc, pieces[i].data, pieces[i].size);
    crc = checksum_crc32c(crc, wal_zeros,
                          (size_t)(format_align(payload, FORMAT_RECORD_ALIGN) - payload));
    format_put32(header + FORMAT_RECORD_CRC, crc);
}

static int wal_write_record(struct wal *wal, const uint8_t *header, const struct wal_piece *pieces,
                            size_t piece_count, uint64_t payload)
{
    struct wal_gather gather = {wal, wal->length, 0};
    int code = wal_gather_put(&gather, header, FORMAT_RECORD_BYTES);
    for (size_t i = 0; i < piece_count && code == OMENDB_OK; i++)
        code = wal_gather_put(&gather, pieces[i].data, pieces[i].size);
    if (code == OMENDB_OK)
        code = wal_gather_put(&gather, wal_zeros,
                              (size_t)(format_align(payload, FORMAT_RECORD_ALIGN) - payload));
    return code == OMENDB_OK ? wal_gather_flush(&gather) : code;
}

/* Takes back what a failed append may have written; the sentence of the failure stays. */
static int wal_cut(struct wal *wal, int code)
{
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof text, "%s", error_text());
    if (storage_truncate(wal->storage, &wal->file, wal->length) != OMENDB_OK) {
        atomic_store_explicit(&wal->poisoned, 1, memory_order_release);
        return error_set(OMENDB_POISONED,
                         "%.400s; then the log could not be cut: close and reopen the database",
                         text);
    }
    uint64_t reserved = wal->allocated;
    wal->allocated = wal->length;
    wal_reserve(wal, reserved);
    return error_adopt(code, text);
}

/* Doubles up to steps of 4 MiB, so that a database of a few records does not take megabytes. */
static void wal_extend(struct wal *wal, uint64_t end)
{
    if (end <= wal->allocated)
        return;
    uint64_t step = wal->allocated < WAL_STEP_BYTES ? wal->allocated : WAL_STEP_BYTES;
    uint64_t wanted = wal->allocated + step;
    wal_reserve(wal, format_align(wanted < end ? end : wanted, WAL_PAGE_BYTES));
}

static int wal_payload_bytes(const struct wal *wal, const struct wal_piece *pieces,
                             size_t piece_count, uint64_t *payload)
{
    uint64_t total = 0;
    for (size_t i = 0; i < piece_count; i++) {
        if (pieces[i].size > UINT32_MAX - total)
            return error_set(OMENDB_TOOBIG,
                             "%s: a commit of more than %" PRIu32 " bytes; use smaller batches",
                             wal->file.name, UINT32_MAX);
        total += pieces[i].size;
    }
    *payload = total;
    return OMENDB_OK;
}

OMENDB_INTERNAL int wal_append(struct wal *wal, uint64_t sequence, uint32_t type,
                               const struct wal_piece *pieces, size_t piece_count)
{
    uint8_t header[FORMAT_RECORD_BYTES];
    uint64_t payload = 0;
    assert(sequence == wal->next_sequence);
    if (atomic_load_explicit(&wal->poisoned, memory_order_acquire))
        return error_set(OMENDB_POISONED,
                         "%s: an earlier sync or cut failed: close and reopen the database",
                         wal->file.name);
    int code = wal_payload_bytes(wal, pieces, piece_count, &payload);
    if (code != OMENDB_OK)
        return code;
    wal_record_header(wal, sequence, type, pieces, piece_count, payload, header);
    uint64_t end = wal->length + wal_record_bytes(payload);
    wal_extend(wal, end);
    code = wal_write_record(wal, header, pieces, piece_count, payload);
    if (code != OMENDB_OK)
        return wal_cut(wal, code);
    wal->length = end;
    wal->next_sequence = sequence + 1;
    if (wal->allocated < end)
        wal->allocated = end;
    return OMENDB_OK;
}

OMENDB_INTERNAL int wal_sync(struct wal *wal)
{
    int code = storage_sync(wal->storage, &wal->file);
    if (code != OMENDB_OK)
        atomic_store_explicit(&wal->poisoned, 1, memory_order_release);
    return code;
}

OMENDB_INTERNAL void wal_set_durable(struct wal *wal, uint64_t length)
{
    uint64_t known = atomic_load_explicit(&wal->durable_upto, memory_order_relaxed);
    while (known < length &&
           !atomic_compare_exchange_weak_explicit(&wal->durable_upto, &known, length,
                                                  memory_order_release, memory_order_relaxed)) {
    }
}

OMENDB_INTERNAL int wal_close(struct wal *wal)
{
    if (wal->storage == NULL)
        return OMENDB_OK;
    memory_free(wal->storage->memory, wal->buffer, WAL_BUFFER_BYTES);
    wal->buffer = NULL;
    return storage_close(wal->storage, &wal->file);
}

/* ------------------------------------------------------------------------------------------------
 * reading */

/* A window of the file in memory. */
struct wal_reader {
    struct storage *storage;
    struct storage_file file;
    uint64_t size; /* of the file; under a live reader it may shrink */
    int live;
    uint8_t *buffer;
    size_t capacity;
    uint64_t start; /* the window: [start, start + filled) */
    size_t filled;
    uint64_t log_id;
    uint64_t first_sequence;
};

/* What the search gives back instead of a view when a writer cut the file: there is nothing at that
 * place. */
#define WAL_GONE OMENDB_DONE

/* A record that was found valid. */
struct wal_frame {
    uint64_t total; /* with header and padding; 0: not valid */
    uint64_t sequence;
    uint64_t durable_upto;
    uint32_t type;
    uint32_t payload;
};

static int wal_reader_grow(struct wal_reader *reader, size_t capacity)
{
    if (capacity <= reader->capacity)
        return OMENDB_OK;
    memory_free(reader->storage->memory, reader->buffer, reader->capacity);
    reader->filled = 0;
    reader->capacity = 0;
    reader->buffer = memory_alloc(reader->storage->memory, capacity);
    if (reader->buffer == NULL)
        return OMENDB_NOMEM;
    reader->capacity = capacity;
    return OMENDB_OK;
}

/* After a read failed: WAL_GONE when that is because a writer in another process cut the file. */
static int wal_reader_cut(struct wal_reader *reader, uint64_t end, int code)
{
    uint64_t size;
    char text[ERROR_TEXT_BYTES];
    if (!reader->live)
        return code;
    snprintf(text, sizeof text, "%s", error_text());
    if (storage_size(reader->storage, &reader->file, &size) != OMENDB_OK || size >= end)
        return error_adopt(code, text);
    reader->size = size;
    return WAL_GONE;
}

/* Gives [offset, offset + length), which lies inside the file, until the next call. The pointer is
 * aligned to 8 if offset is. */
static int wal_reader_view(struct wal_reader *reader, uint64_t offset, size_t length,
                           const uint8_t **bytes)
{
    if (offset < reader->start || offset - reader->start > reader->filled ||
        length > reader->filled - (size_t)(offset - reader->start)) {
        int code = wal_reader_grow(reader, length);
        if (code != OMENDB_OK)
            return code;
        uint64_t rest = reader->size - offset;
        size_t wanted = rest < reader->capacity ? (size_t)rest : reader->capacity;
        reader->filled = 0;
        code = storage_read(reader->storage, &reader->file, offset, reader->buffer, wanted);
        if (code != OMENDB_OK)
            return wal_reader_cut(reader, offset + wanted, code);
        reader->start = offset;
        reader->filled = wanted;
    }
    *bytes = reader->buffer + (size_t)(offset - reader->start);
    return OMENDB_OK;
}

/* CRC32C of [offset, end) continued from `crc`, a window at a time. */
static int wal_reader_checksum(struct wal_reader *reader, uint64_t offset, uint64_t end,
                               uint32_t *crc)
{
    while (offset < end) {
        const uint8_t *bytes;
        size_t piece = end - offset < reader->capacity ? (size_t)(end - offset) : reader->capacity;
        int code = wal_reader_view(reader, offset, piece, &bytes);
        if (code != OMENDB_OK)
            return code;
        *crc = checksum_crc32c(*crc, bytes, piece);
        offset += piece;
    }
    return OMENDB_OK;
}

/* The fields of a record's header at `offset`, if they can be those of a record of this log (log id
 * 0: of any). */
static void wal_parse_header(const struct wal_reader *reader, uint64_t offset,
                             const uint8_t *header, struct wal_frame *frame)
{
    uint64_t log_id = format_get64(header + FORMAT_RECORD_LOG_ID);
    frame->sequence = format_get64(header + FORMAT_RECORD_SEQUENCE);
    frame->durable_upto = format_get64(header + FORMAT_RECORD_DURABLE);
    frame->type = format_get32(header + FORMAT_RECORD_TYPE);
    frame->payload = format_get32(header + FORMAT_RECORD_LENGTH);
    frame->total = wal_record_bytes(frame->payload);
    if (log_id == 0 || (reader->log_id != 0 && log_id != reader->log_id) ||
        frame->total > reader->size - offset || frame->durable_upto > offset ||
        format_get32(header + FORMAT_RECORD_ZERO) != 0)
        frame->total = 0;
}

/* Looks whether a valid record stands at `offset`: frame->total is 0 if not. whole: its payload can
 * be viewed afterwards without reading again; the window grows to it, which the file's size bounds.
 * *claimed: bytes that had to be looked at. */
static int wal_check(struct wal_reader *reader, uint64_t offset, int whole, struct wal_frame *frame,
                     uint64_t *claimed)
{
    const uint8_t *bytes;
    uint8_t header[FORMAT_RECORD_BYTES];
    memset(frame, 0, sizeof *frame);
    if (offset > reader->size || reader->size - offset < FORMAT_RECORD_BYTES)
        return OMENDB_OK;
    int code = wal_reader_view(reader, offset, sizeof header, &bytes);
    if (code != OMENDB_OK)
        return code;
    memcpy(header, bytes, sizeof header);
    wal_parse_header(reader, offset, header, frame);
    if (frame->total == 0)
        return OMENDB_OK;
    *claimed += frame->total;
    if (whole)
        code = wal_reader_view(reader, offset, (size_t)frame->total, &bytes);
    uint32_t crc = checksum_crc32c(0, header, FORMAT_RECORD_CRC);
    crc = checksum_crc32c(crc, header + FORMAT_RECORD_SEQUENCE,
                          sizeof header - FORMAT_RECORD_SEQUENCE);
    if (code == OMENDB_OK)
        code = wal_reader_checksum(reader, offset + sizeof header, offset + frame->total, &crc);
    if (code == OMENDB_OK && crc != format_get32(header + FORMAT_RECORD_CRC))
        frame->total = 0;
    return code;
}

/* What the search behind a bad record found. */
struct wal_search {
    int vouched;      /* a valid record knows the place to have been durable */
    int nonzero;      /* something other than preallocated zeros is there */
    uint64_t claimed; /* bytes of candidates */
};

/* Looks at the multiples of 8 from *offset within the window; stops at what may be a record. */
static int wal_search_window(struct wal_reader *reader, uint64_t *offset, struct wal_search *search,
                             int *candidate)
{
    const uint8_t *bytes;
    uint64_t rest = reader->size - *offset;
    size_t length = rest < reader->capacity ? (size_t)rest : reader->capacity, at = 0;
    int code = wal_reader_view(reader, *offset, length, &bytes);
    *candidate = 0;
    if (code != OMENDB_OK)
        return code;
    while (at + FORMAT_RECORD_BYTES <= length && !*candidate) {
        uint64_t log_id = format_get64(bytes + at + FORMAT_RECORD_LOG_ID);
        search->nonzero |= format_get64(bytes + at) != 0;
        *candidate = reader->log_id != 0 ? log_id == reader->log_id : log_id != 0;
        at += *candidate ? 0 : FORMAT_RECORD_ALIGN;
    }
    *offset += at;
    if (length == rest && !*candidate) { /* less than a record is left */
        search->nonzero |= !format_is_zero(bytes + at, length - at);
        *offset = reader->size;
    }
    return OMENDB_OK;
}

/* Searches behind `bad` for a valid record that says that `bad` was durable. */
static int wal_search_behind(struct wal_reader *reader, uint64_t bad, struct wal_search *search)
{
    uint64_t offset = bad, allowed = 2 * (reader->size - bad) + WAL_WINDOW_BYTES;
    memset(search, 0, sizeof *search);
    while (offset < reader->size) {
        struct wal_frame frame;
        int candidate;
        int code = wal_search_window(reader, &offset, search, &candidate);
        if (code == OMENDB_OK && candidate) {
            code = wal_check(reader, offset, 0, &frame, &search->claimed);
            if (code == OMENDB_OK && frame.total != 0 && frame.durable_upto > bad)
                search->vouched = 1;
            search->nonzero = 1;
            offset += frame.total != 0 ? frame.total : FORMAT_RECORD_ALIGN;
        }
        if (code != OMENDB_OK)
            return code;
        if (search->vouched)
            return OMENDB_OK;
        if (search->claimed > allowed)
            return error_set(OMENDB_CORRUPT,
                             "%s: after offset %" PRIu64
                             " there are more damaged records than a crash leaves"
                             "; restore from a backup",
                             reader->file.name, bad);
    }
    return OMENDB_OK;
}

static int wal_corrupt(const struct wal_reader *reader, uint64_t offset, const char *why)
{
    return error_set(OMENDB_CORRUPT,
                     "%s: record at offset %" PRIu64
                     " is damaged although %s; restore from a backup, or salvage",
                     reader->file.name, offset, why);
}

/* The header is bad or was never written. If nothing in the file says that it was durable, the log
 * was never begun. */
static int wal_header_missing(struct wal_reader *reader, struct wal_replay *replay)
{
    struct wal_search search;
    if (replay->final_length != WAL_LENGTH_UNKNOWN)
        return error_set(OMENDB_CORRUPT,
                         "%s: header (offset 0) is damaged; restore from a backup, or salvage",
                         reader->file.name);
    int code = wal_search_behind(reader, 0, &search);
    if (code != OMENDB_OK)
        return code == WAL_GONE
                   ? error_set(OMENDB_NOTFOUND, "%s was never completed", reader->file.name)
                   : code;
    if (search.vouched)
        return error_set(OMENDB_CORRUPT,
                         "%s: header (offset 0) is damaged; restore from a backup, or salvage",
                         reader->file.name);
    replay->torn = search.nonzero;
    return error_set(OMENDB_NOTFOUND,
                     "%s was never completed: it has no header and nothing durable",
                     reader->file.name);
}

static int wal_read_header(struct wal_reader *reader, struct wal_replay *replay)
{
    const uint8_t *header = NULL;
    int code = OMENDB_OK;
    if (reader->size < FORMAT_HEADER_BYTES)
        return wal_header_missing(reader, replay);
    code = wal_reader_view(reader, 0, FORMAT_HEADER_BYTES, &header);
    if (code != OMENDB_OK)
        return code == WAL_GONE
                   ? error_set(OMENDB_NOTFOUND, "%s was never completed", reader->file.name)
                   : code;
    code = storage_header_check(reader->file.name, header, FORMAT_MAGIC_WAL);
    if (code == OMENDB_FORMAT && memcmp(header, FORMAT_MAGIC_WAL, FORMAT_MAGIC_BYTES) == 0)
        return code;
    if (code != OMENDB_OK)
        return wal_header_missing(reader, replay);
    reader->log_id = format_get64(header + FORMAT_WAL_LOG_ID);
    reader->first_sequence = format_get64(header + FORMAT_WAL_FIRST_SEQUENCE);
    replay->log_id = reader->log_id;
    replay->predecessor = format_get64(header + FORMAT_WAL_PREDECESSOR);
    replay->predecessor_length = format_get64(header + FORMAT_WAL_PREDECESSOR_LENGTH);
    if (reader->log_id == 0)
        return error_set(OMENDB_CORRUPT,
                         "%s: header (offset 0) names no log; restore from a backup",
                         reader->file.name);
    return OMENDB_OK;
}

/* Where reading starts and which sequence it expects (0 after a start_offset: any). */
static int wal_begin(struct wal_reader *reader, struct wal_replay *replay)
{
    replay->next_sequence = replay->first_sequence;
    replay->end = replay->start_offset;
    if (replay->start_offset == 0) {
        if (replay->first_sequence != 0 && replay->first_sequence != reader->first_sequence)
            return error_set(OMENDB_CORRUPT,
                             "%s: begins with commit %" PRIu64 ", but %" PRIu64
                             " must follow; restore from a backup",
                             reader->file.name, reader->first_sequence, replay->first_sequence);
        replay->next_sequence = reader->first_sequence;
        replay->end = FORMAT_HEADER_BYTES;
    }
    if (replay->final_length != WAL_LENGTH_UNKNOWN &&
        (replay->final_length > reader->size || replay->final_length < replay->end))
        return error_set(OMENDB_CORRUPT,
                         "%s: has %" PRIu64 " bytes, but %" PRIu64
                         " were durable; restore from a backup, or salvage",
                         reader->file.name, reader->size, replay->final_length);
    if (replay->end % FORMAT_RECORD_ALIGN != 0 || replay->end > reader->size)
        return error_set(OMENDB_CORRUPT,
                         "%s: has %" PRIu64 " bytes; reading cannot go on at offset %" PRIu64
                         "; reopen the database",
                         reader->file.name, reader->size, replay->end);
    return OMENDB_OK;
}

/* wal_check, and the sequence must be the expected one. A file that was cut has no record there. */
static int wal_check_next(struct wal_reader *reader, uint64_t offset, uint64_t sequence, int whole,
                          struct wal_frame *frame)
{
    uint64_t claimed = 0;
    int code = wal_check(reader, offset, whole, frame, &claimed);
    if (code == WAL_GONE) {
        frame->total = 0;
        return OMENDB_OK;
    }
    if (sequence != 0 && frame->sequence != sequence)
        frame->total = 0;
    return code;
}

/* Decides what a bad record at `offset` is. Under a live reader the writer may have completed it
 * meanwhile: *again asks to look once more, at bytes that must now be whole, as they were synced
 * before the record was written that vouches for them. */
static int wal_judge(struct wal_reader *reader, uint64_t offset, int retried, int *torn, int *again)
{
    struct wal_search search;
    *again = 0;
    int code = wal_search_behind(reader, offset, &search);
    if (code != OMENDB_OK)
        return code == WAL_GONE ? OMENDB_OK : code;
    *torn = search.nonzero && !reader->live;
    if (!search.vouched)
        return OMENDB_OK;
    if (!reader->live || retried)
        return wal_corrupt(reader, offset, "a later one says that it was on the device");
    reader->filled = 0;
    *again = 1;
    return OMENDB_OK;
}

/* Whole records end at `offset`; they were read before this sync, so when it succeeds they are on
 * the device. A reader of read-only media may not sync, and goes by what the records say. */
static void wal_make_durable(struct wal_reader *reader, uint64_t offset, uint64_t *durable)
{
    const omendb_vfs *vfs = reader->storage->vfs;
    if (offset > *durable && vfs->sync(vfs->context, reader->file.handle) == OMENDB_OK)
        *durable = offset;
}

/* For a live reader: how far the log is known to be durable, by what its records say or by a sync.
 */
static int wal_find_durable(struct wal_reader *reader, const struct wal_replay *replay,
                            uint64_t *durable)
{
    uint64_t offset = replay->end, sequence = replay->next_sequence, retried = 0;
    *durable = replay->end;
    for (;;) {
        struct wal_frame frame;
        int torn, again, code = wal_check_next(reader, offset, sequence, 0, &frame);
        if (code != OMENDB_OK)
            return code;
        if (frame.total == 0) {
            code = wal_judge(reader, offset, retried == offset, &torn, &again);
            if (code == OMENDB_OK && !again && replay->may_sync)
                wal_make_durable(reader, offset, durable);
            if (code != OMENDB_OK || !again)
                return code;
            retried = offset;
            continue;
        }
        if (frame.durable_upto > *durable)
            *durable = frame.durable_upto;
        sequence = frame.sequence + 1;
        offset += frame.total;
    }
}

static int wal_deliver(struct wal_reader *reader, uint64_t offset, const struct wal_frame *frame,
                       int (*deliver)(void *context, const struct wal_record *record),
                       void *context)
{
    struct wal_record record = {frame->sequence, offset, frame->type, frame->payload, NULL};
    int code =
        wal_reader_view(reader, offset + FORMAT_RECORD_BYTES, frame->payload, &record.payload);
    return code == OMENDB_OK ? deliver(context, &record) : code;
}

/* Delivers records that end at or before `limit`, up to the first that is not valid; *bad tells
 * that there was one. */
static int wal_deliver_all(struct wal_reader *reader, struct wal_replay *replay, uint64_t limit,
                           int *bad, int (*deliver)(void *context, const struct wal_record *record),
                           void *context)
{
    *bad = 0;
    while (replay->end < limit) {
        struct wal_frame frame;
        int code = wal_check_next(reader, replay->end, replay->next_sequence, 1, &frame);
        if (code == OMENDB_OK && (frame.total == 0 || frame.total > limit - replay->end)) {
            *bad = 1;
            return OMENDB_OK;
        }
        if (code == OMENDB_OK)
            code = wal_deliver(reader, replay->end, &frame, deliver, context);
        if (code != OMENDB_OK)
            return code;
        replay->end += frame.total;
        replay->next_sequence = frame.sequence + 1;
    }
    return OMENDB_OK;
}

static int wal_read_opened(struct wal_reader *reader, struct wal_replay *replay,
                           int (*deliver)(void *context, const struct wal_record *record),
                           void *context)
{
    uint64_t limit = replay->final_length;
    int known = limit != WAL_LENGTH_UNKNOWN, bad = 0, again;
    int code = wal_read_header(reader, replay);
    if (code == OMENDB_OK)
        code = wal_begin(reader, replay);
    if (code == OMENDB_OK && !known && replay->live_reader)
        code = wal_find_durable(reader, replay, &limit);
    if (code == OMENDB_OK && !known && !replay->live_reader)
        limit = reader->size;
    if (code == OMENDB_OK)
        code = wal_deliver_all(reader, replay, limit, &bad, deliver, context);
    if (code == OMENDB_OK && bad && known)
        code = wal_corrupt(reader, replay->end, "it lies below the log's known length");
    if (code == OMENDB_OK && bad && !known && !replay->live_reader)
        code = wal_judge(reader, replay->end, 1, &replay->torn, &again);
    return code;
}

OMENDB_INTERNAL int wal_read(struct storage *storage, struct wal_replay *replay,
                             int (*deliver)(void *context, const struct wal_record *record),
                             void *context)
{
    struct wal_reader reader;
    char name[STORAGE_NAME_BYTES];
    memset(&reader, 0, sizeof reader);
    reader.storage = storage;
    reader.live = replay->live_reader;
    replay->end = replay->start_offset;
    replay->next_sequence = replay->first_sequence;
    replay->predecessor = replay->predecessor_length = replay->log_id = 0;
    replay->torn = 0;
    storage_name(STORAGE_WAL, replay->number, name);
    int code = storage_open(storage, name, OMENDB_OPEN_READ, &reader.file);
    if (code != OMENDB_OK)
        return code;
    code = storage_size(storage, &reader.file, &reader.size);
    if (code == OMENDB_OK) {
        size_t capacity = reader.size < WAL_WINDOW_BYTES ? (size_t)reader.size : WAL_WINDOW_BYTES;
        code = wal_reader_grow(&reader,
                               capacity < FORMAT_HEADER_BYTES ? FORMAT_HEADER_BYTES : capacity);
    }
    if (code == OMENDB_OK)
        code = wal_read_opened(&reader, replay, deliver, context);
    memory_free(storage->memory, reader.buffer, reader.capacity);
    storage_close(storage, &reader.file); /* nothing was written: a failure cannot lose anything */
    return code;
}

#undef WAL_BUFFER_BYTES
#undef WAL_WINDOW_BYTES
#undef WAL_STEP_BYTES
#undef WAL_PAGE_BYTES
#undef WAL_GONE

/* ==============================================================================================
 * manifest.c
 * ============================================================================================== */

/* manifest.c: the root, written whole and replaced whole. format.h has the bytes.
 *
 * Invariant: CURRENT names a manifest that was on the device, with its directory entry, before
 * CURRENT was renamed to it. So after a crash CURRENT names the old or the new one, and either is
 * complete:
 *
 *   MANIFEST-n written and synced; CURRENT.tmp written and synced; directory synced (entries of
 * both, and of whatever segments the manifest names); CURRENT.tmp renamed to CURRENT; directory
 * synced.
 *
 * Nothing may be deleted because of a new manifest before the last of these. If that one fails, or
 * the rename fails in a way that does not tell whether it happened, either manifest may be the one
 * after a crash: OMENDB_POISONED, and both files stay. On any other error the old one is the
 * current one, as before.
 *
 * What is read is bounded as it is decoded (counts against the bytes that are left), and then
 * checked as a whole by the same function that looks at a manifest before it is written, so that
 * nothing is written that would be refused.
 *
 * Rejected: appending edits to one manifest file (recovery would have a second log to get right),
 * and an order of files kept by the caller (they are sorted here). */

/* ==============================================================================================
 * manifest.h
 * ============================================================================================== */

/* manifest.h: MANIFEST-<n>, the immutable root of everything, named by CURRENT. In memory it is
 * this plain structure, which the engine fills for each publication; on disk: header of 64 bytes
 * (magic "OMENDBMF", version, three masks, length, CRC32C of all that follows and of the header),
 * then fixed fields, files, collections sorted by the bytes of their names, their schema, counters
 * and segments. manifest.c has the byte layout. CURRENT holds the name of the manifest and a
 * newline, and its CRC32C in hexadecimal. */
#ifndef OMENDB_MANIFEST_H
#define OMENDB_MANIFEST_H

struct manifest_file {
    uint64_t number;
    uint64_t size;
    uint32_t footer_crc;
    uint32_t kind; /* enum storage_kind: STORAGE_SEGMENT or STORAGE_OVERLAY */
};

struct manifest_segment {
    uint64_t file;
    uint32_t part;
    uint32_t overlay_part;
    uint64_t overlay_file; /* 0: no tombstones */
};

struct manifest_collection {
    uint64_t id;
    uint64_t next_id; /* next automatic id of a record */
    char name[256];
    omendb_schema schema; /* complete */
    uint32_t segment_count;
    struct manifest_segment *segments;
    struct calibration *calibration; /* that omendb_calibrate measured, or NULL */
};

struct manifest {
    uint64_t number;     /* its own */
    uint64_t commit;     /* S: everything up to it is in the segments; replay applies later ones */
    uint64_t wal_number; /* first log to replay */
    uint64_t next_file;  /* next number of any file */
    uint64_t next_collection;    /* next id of a collection */
    uint32_t read_only_features; /* from manifest_read: unknown ones; not 0: the database may only
                                    be opened read-only */
    uint32_t file_count;
    uint32_t collection_count;
    struct manifest_file *files;
    struct manifest_collection *collections; /* sorted by name */
};

OMENDB_INTERNAL void
manifest_destroy(struct memory *memory,
                 struct manifest *manifest); /* frees the arrays; a zeroed one is OK */

/* Writes MANIFEST-<number> and CURRENT.tmp, syncs both and the directory (so also the entries of
 * new segments), renames CURRENT.tmp to CURRENT, syncs the directory. OMENDB_POISONED: the new
 * manifest or the former one may be the current one after a crash; delete nothing that either
 * needs. Any other error: the former one is. OMENDB_MISUSE: manifest_read would refuse it; nothing
 * was written. Files may be in any order; manifest_read gives them ascending. */
OMENDB_INTERNAL int manifest_write(struct storage *storage, const struct manifest *manifest);

/* Reads CURRENT and what it names. OMENDB_NOTFOUND: there is no CURRENT. OMENDB_CORRUPT,
 * OMENDB_FORMAT (magic, later version, unknown "refuse" feature), OMENDB_IOERR. Everything is
 * bounded: counts against the length, names, schema values, ascending order. */
OMENDB_INTERNAL int manifest_read(struct storage *storage, struct manifest *manifest);
/* Only the number that CURRENT names. */
OMENDB_INTERNAL int manifest_current(struct storage *storage, uint64_t *number);

#endif

/* manifest.c, continued */

#define MANIFEST_CURRENT       "CURRENT"
#define MANIFEST_CURRENT_TMP   "CURRENT.tmp"
#define MANIFEST_CURRENT_BYTES 64 /* more than a name, two newlines and eight digits */
#define MANIFEST_READ_TRIES    8

OMENDB_INTERNAL void manifest_destroy(struct memory *memory, struct manifest *manifest)
{
    for (uint32_t i = 0; manifest->collections != NULL && i < manifest->collection_count; i++) {
        struct manifest_collection *collection = &manifest->collections[i];
        memory_free(memory, collection->segments,
                    collection->segment_count * sizeof *collection->segments);
        memory_free(memory, collection->calibration, sizeof *collection->calibration);
    }
    memory_free(memory, manifest->collections,
                manifest->collection_count * sizeof *manifest->collections);
    memory_free(memory, manifest->files, manifest->file_count * sizeof *manifest->files);
    memset(manifest, 0, sizeof *manifest);
}

/* ------------------------------------------------------------------------------------------------
 * what a manifest must be, whether it was read or is to be written */

/* One use of a part of a file. */
struct manifest_use {
    uint64_t file;
    uint32_t part;
    uint32_t kind;
};

static int manifest_compare_files(const void *a, const void *b)
{
    uint64_t left = ((const struct manifest_file *)a)->number,
             right = ((const struct manifest_file *)b)->number;
    return (left > right) - (left < right);
}

static int manifest_compare_uses(const void *a, const void *b)
{
    const struct manifest_use *left = a, *right = b;
    if (left->file != right->file)
        return left->file < right->file ? -1 : 1;
    return (left->part > right->part) - (left->part < right->part);
}

static int manifest_compare_ids(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* `code` is OMENDB_CORRUPT for one that was read, OMENDB_MISUSE for one to be written. */
struct manifest_check {
    const struct manifest *manifest;
    const char *name;
    int code;
};

static int manifest_refuse(const struct manifest_check *check, const char *what, const char *why)
{
    return error_set(check->code, "%s: %s %s; %s", check->name, what, why,
                     check->code == OMENDB_CORRUPT ? "restore from a backup, or salvage"
                                                   : "it was not written");
}

static int manifest_name_is_legal(const char name[256])
{
    size_t length = 0;
    for (; length < 256 && name[length] != '\0'; length++) {
        unsigned char byte = (unsigned char)name[length];
        if (byte < 0x20 || byte == 0x7f)
            return 0;
    }
    return length >= 1 && length <= 255;
}

/* The field that is out of its range, or NULL. */
static const char *manifest_bad_field(const omendb_schema *schema)
{
    if (schema->dim < 1 || schema->dim > 65535)
        return "dim";
    if (schema->metric > OMENDB_HAMMING)
        return "metric";
    if (schema->scalar > OMENDB_B1 ||
        (schema->scalar == OMENDB_B1) != (schema->metric == OMENDB_HAMMING))
        return "scalar";
    if (!isfinite(schema->scale) || schema->scale < 0)
        return "scale";
    if (schema->M < 2 || schema->M > 256)
        return "M";
    if (schema->ef_construction < 8 || schema->ef_construction > 10000)
        return "ef_construction";
    return schema->ef < 1 || schema->ef > 100000 ? "ef" : NULL;
}

static int manifest_check_files(const struct manifest_check *check)
{
    const struct manifest *manifest = check->manifest;
    for (uint32_t i = 0; i < manifest->file_count; i++) {
        const struct manifest_file *file = &manifest->files[i];
        char what[64];
        snprintf(what, sizeof what, "file %" PRIu64, file->number);
        if (i > 0 && file->number <= manifest->files[i - 1].number)
            return manifest_refuse(check, what, "occurs twice or out of order");
        if (file->kind != STORAGE_SEGMENT && file->kind != STORAGE_OVERLAY)
            return manifest_refuse(check, what, "is neither of segments nor of overlays");
        if (file->number >= manifest->next_file)
            return manifest_refuse(check, what, "has a number that was not given out yet");
    }
    return OMENDB_OK;
}

/* Whether the manifest has a file of this number and kind; the files are in order. */
static int manifest_has_file(const struct manifest *manifest, uint64_t number, uint32_t kind)
{
    uint32_t low = 0, high = manifest->file_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (manifest->files[middle].number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < manifest->file_count && manifest->files[low].number == number &&
           manifest->files[low].kind == kind;
}

static int manifest_check_collection(const struct manifest_check *check, uint32_t index)
{
    const struct manifest *manifest = check->manifest;
    const struct manifest_collection *collection = &manifest->collections[index];
    char what[64];
    snprintf(what, sizeof what, "collection number %" PRIu32, index);
    if (!manifest_name_is_legal(collection->name))
        return manifest_refuse(check, what,
                               "has a name that is empty, too long or of control characters");
    if (index > 0 && strcmp(manifest->collections[index - 1].name, collection->name) >= 0)
        return manifest_refuse(check, what, "has the name of another one or stands out of order");
    if (collection->id >= manifest->next_collection)
        return manifest_refuse(check, what, "has an id that was not given out yet");
    const char *field = manifest_bad_field(&collection->schema);
    if (field != NULL) {
        snprintf(what, sizeof what, "collection number %" PRIu32 ": schema.%s", index, field);
        return manifest_refuse(check, what, "is out of its range");
    }
    if (collection->calibration != NULL && !calibration_is_legal(collection->calibration))
        return manifest_refuse(check, what, "has a curve of recall that does not ascend");
    for (uint32_t i = 0; i < collection->segment_count; i++) {
        const struct manifest_segment *segment = &collection->segments[i];
        if (!manifest_has_file(manifest, segment->file, STORAGE_SEGMENT) ||
            (segment->overlay_file != 0 &&
             !manifest_has_file(manifest, segment->overlay_file, STORAGE_OVERLAY)))
            return manifest_refuse(check, what, "has a segment of a file that is not listed");
    }
    return OMENDB_OK;
}

static int manifest_check_unique_ids(const struct manifest_check *check, struct memory *memory)
{
    const struct manifest *manifest = check->manifest;
    size_t count = manifest->collection_count;
    uint64_t *ids = memory_array(memory, count, sizeof *ids);
    int code = OMENDB_OK;
    if (ids == NULL)
        return OMENDB_NOMEM;
    for (size_t i = 0; i < count; i++)
        ids[i] = manifest->collections[i].id;
    sort_array(ids, count, sizeof *ids, manifest_compare_ids);
    for (size_t i = 1; i < count && code == OMENDB_OK; i++) {
        if (ids[i] == ids[i - 1])
            code = manifest_refuse(check, "an id", "belongs to two collections");
    }
    memory_free(memory, ids, count * sizeof *ids);
    return code;
}

/* No part of a file serves two segments: not as a segment, not as its overlay. */
static int manifest_check_unique_parts(const struct manifest_check *check, struct memory *memory)
{
    const struct manifest *manifest = check->manifest;
    size_t capacity = 0, count = 0;
    for (uint32_t i = 0; i < manifest->collection_count; i++)
        capacity = memory_add(capacity, memory_multiply(manifest->collections[i].segment_count, 2));
    struct manifest_use *uses = memory_array(memory, capacity, sizeof *uses);
    int code = OMENDB_OK;
    if (uses == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < manifest->collection_count; i++) {
        for (uint32_t j = 0; j < manifest->collections[i].segment_count; j++) {
            const struct manifest_segment *segment = &manifest->collections[i].segments[j];
            uses[count++] = (struct manifest_use){segment->file, segment->part, STORAGE_SEGMENT};
            if (segment->overlay_file != 0)
                uses[count++] = (struct manifest_use){segment->overlay_file, segment->overlay_part,
                                                      STORAGE_OVERLAY};
        }
    }
    sort_array(uses, count, sizeof *uses, manifest_compare_uses);
    for (size_t i = 1; i < count && code == OMENDB_OK; i++) {
        if (manifest_compare_uses(&uses[i - 1], &uses[i]) == 0)
            code = manifest_refuse(check, "a part of a file", "belongs to two segments");
    }
    memory_free(memory, uses, capacity * sizeof *uses);
    return code;
}

static int manifest_check_all(const struct manifest_check *check, struct memory *memory)
{
    int code = manifest_check_files(check);
    if (code == OMENDB_OK && check->manifest->wal_number >= check->manifest->next_file)
        code = manifest_refuse(check, "the log", "has a number that was not given out yet");
    for (uint32_t i = 0; i < check->manifest->collection_count && code == OMENDB_OK; i++)
        code = manifest_check_collection(check, i);
    if (code == OMENDB_OK)
        code = manifest_check_unique_ids(check, memory);
    if (code == OMENDB_OK)
        code = manifest_check_unique_parts(check, memory);
    return code;
}

/* ------------------------------------------------------------------------------------------------
 * writing */

static size_t manifest_collection_bytes(const struct manifest_collection *collection)
{
    size_t name = (size_t)format_align(strlen(collection->name), 8);
    size_t curve = calibration_bytes(collection->calibration);
    return memory_add(FORMAT_COLLECTION_BYTES + name + curve,
                      memory_multiply(collection->segment_count, FORMAT_REFERENCE_BYTES));
}

static size_t manifest_bytes(const struct manifest *manifest)
{
    size_t total =
        memory_add(FORMAT_MANIFEST_BYTES, memory_multiply(manifest->file_count, FORMAT_FILE_BYTES));
    for (uint32_t i = 0; i < manifest->collection_count; i++)
        total = memory_add(total, manifest_collection_bytes(&manifest->collections[i]));
    return total;
}

static void manifest_encode_files(const struct manifest *manifest, uint8_t *at)
{
    for (uint32_t i = 0; i < manifest->file_count; i++, at += FORMAT_FILE_BYTES) {
        const struct manifest_file *file = &manifest->files[i];
        format_put64(at + FORMAT_FILE_NUMBER, file->number);
        format_put64(at + FORMAT_FILE_SIZE, file->size);
        format_put32(at + FORMAT_FILE_CRC, file->footer_crc);
        format_put32(at + FORMAT_FILE_KIND,
                     file->kind == STORAGE_OVERLAY ? FORMAT_KIND_OVERLAY : FORMAT_KIND_SEGMENT);
    }
}

static void manifest_encode_collection(const struct manifest_collection *collection, uint8_t *at)
{
    const omendb_schema *schema = &collection->schema;
    size_t name_bytes = strlen(collection->name);
    format_put64(at + FORMAT_COLLECTION_ID, collection->id);
    format_put64(at + FORMAT_COLLECTION_NEXT_ID, collection->next_id);
    format_put64(at + FORMAT_COLLECTION_SEED, schema->seed);
    format_put32(at + FORMAT_COLLECTION_DIM, schema->dim);
    format_put32(at + FORMAT_COLLECTION_METRIC, schema->metric);
    format_put32(at + FORMAT_COLLECTION_SCALAR, schema->scalar);
    format_put_float(at + FORMAT_COLLECTION_SCALE, schema->scale);
    format_put32(at + FORMAT_COLLECTION_M, schema->M);
    format_put32(at + FORMAT_COLLECTION_EF_CONSTRUCTION, schema->ef_construction);
    format_put32(at + FORMAT_COLLECTION_EF, schema->ef);
    format_put32(at + FORMAT_COLLECTION_NAME_BYTES, (uint32_t)name_bytes);
    format_put32(at + FORMAT_COLLECTION_SEGMENTS, collection->segment_count);
    format_put32(at + FORMAT_COLLECTION_CALIBRATION,
                 (uint32_t)calibration_bytes(collection->calibration));
    at += FORMAT_COLLECTION_BYTES;
    memcpy(at, collection->name, name_bytes);
    at += format_align(name_bytes, 8);
    for (uint32_t i = 0; i < collection->segment_count; i++, at += FORMAT_REFERENCE_BYTES) {
        const struct manifest_segment *segment = &collection->segments[i];
        format_put64(at + FORMAT_REFERENCE_FILE, segment->file);
        format_put32(at + FORMAT_REFERENCE_PART, segment->part);
        format_put32(at + FORMAT_REFERENCE_OVERLAY_PART, segment->overlay_part);
        format_put64(at + FORMAT_REFERENCE_OVERLAY_FILE, segment->overlay_file);
    }
    if (calibration_bytes(collection->calibration) != 0)
        calibration_encode(collection->calibration, at);
}

/* `bytes` is zeroed. */
static void manifest_encode(const struct manifest *manifest, uint8_t *bytes, size_t length)
{
    storage_header_begin(bytes, FORMAT_MAGIC_MANIFEST);
    format_put64(bytes + FORMAT_MANIFEST_LENGTH, length);
    format_put64(bytes + FORMAT_MANIFEST_NUMBER, manifest->number);
    format_put64(bytes + FORMAT_MANIFEST_COMMIT, manifest->commit);
    format_put64(bytes + FORMAT_MANIFEST_WAL, manifest->wal_number);
    format_put64(bytes + FORMAT_MANIFEST_NEXT_FILE, manifest->next_file);
    format_put64(bytes + FORMAT_MANIFEST_NEXT_COLLECTION, manifest->next_collection);
    format_put32(bytes + FORMAT_MANIFEST_FILES, manifest->file_count);
    format_put32(bytes + FORMAT_MANIFEST_COLLECTIONS, manifest->collection_count);
    manifest_encode_files(manifest, bytes + FORMAT_MANIFEST_BYTES);
    uint8_t *at = bytes + FORMAT_MANIFEST_BYTES + (size_t)manifest->file_count * FORMAT_FILE_BYTES;
    for (uint32_t i = 0; i < manifest->collection_count; i++) {
        manifest_encode_collection(&manifest->collections[i], at);
        at += manifest_collection_bytes(&manifest->collections[i]);
    }
    uint32_t crc = checksum_crc32c(0, bytes + FORMAT_HEADER_BYTES, length - FORMAT_HEADER_BYTES);
    format_put32(bytes + FORMAT_MANIFEST_CRC, crc);
    storage_header_end(bytes);
}

/* A new file with these bytes, synced. */
static int manifest_write_file(struct storage *storage, const char *name, const void *bytes,
                               size_t length)
{
    struct storage_file file;
    int code = storage_open(
        storage, name,
        OMENDB_OPEN_READ | OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE | OMENDB_OPEN_EXCLUSIVE, &file);
    if (code != OMENDB_OK)
        return code;
    code = storage_write(storage, &file, 0, bytes, length);
    if (code == OMENDB_OK)
        code = storage_sync(storage, &file);
    if (code != OMENDB_OK) {
        char text[ERROR_TEXT_BYTES];
        snprintf(text, sizeof text, "%s", error_text());
        storage_close(storage, &file);
        storage_unlink(storage, name);
        return error_adopt(code, text);
    }
    return storage_close(storage, &file);
}

/* The text of CURRENT; returns its length. */
static size_t manifest_current_text(uint64_t number, char text[MANIFEST_CURRENT_BYTES])
{
    char name[STORAGE_NAME_BYTES];
    storage_name(STORAGE_MANIFEST, number, name);
    int line = snprintf(text, MANIFEST_CURRENT_BYTES, "%s\n", name);
    uint32_t crc = checksum_crc32c(0, text, (size_t)line);
    return (size_t)(line + snprintf(text + line, MANIFEST_CURRENT_BYTES - (size_t)line,
                                    "%08" PRIx32 "\n", crc));
}

/* Makes both files; what is there already under the temporary name was left by a crash. */
static int manifest_prepare(struct storage *storage, const char *name, uint64_t number,
                            const uint8_t *bytes, size_t length)
{
    char text[MANIFEST_CURRENT_BYTES];
    size_t text_length = manifest_current_text(number, text);
    int code = storage_unlink(storage, MANIFEST_CURRENT_TMP);
    if (code == OMENDB_OK)
        code = manifest_write_file(storage, name, bytes, length);
    if (code != OMENDB_OK)
        return code;
    code = manifest_write_file(storage, MANIFEST_CURRENT_TMP, text, text_length);
    if (code == OMENDB_OK)
        code = storage_sync_directory(storage);
    return code;
}

/* The old manifest stays the current one; what was prepared for the new one goes. */
static int manifest_abandon(struct storage *storage, const char *name, int code)
{
    char text[ERROR_TEXT_BYTES];
    snprintf(text, sizeof text, "%s", error_text());
    storage_unlink(storage, name);
    storage_unlink(storage, MANIFEST_CURRENT_TMP);
    return error_adopt(code, text);
}

static int manifest_publish(struct storage *storage, uint64_t number, const uint8_t *bytes,
                            size_t length)
{
    char name[STORAGE_NAME_BYTES], text[ERROR_TEXT_BYTES];
    storage_name(STORAGE_MANIFEST, number, name);
    int code = manifest_prepare(storage, name, number, bytes, length);
    if (code == OMENDB_EXISTS)
        return code; /* not ours to delete */
    if (code != OMENDB_OK)
        return manifest_abandon(storage, name, code);
    code = storage_rename(storage, MANIFEST_CURRENT_TMP, MANIFEST_CURRENT);
    if (code != OMENDB_OK && code != OMENDB_IOERR)
        return manifest_abandon(storage, name, code);
    if (code == OMENDB_OK)
        code = storage_sync_directory(storage);
    if (code == OMENDB_OK)
        return OMENDB_OK;
    snprintf(text, sizeof text, "%s", error_text());
    return error_set(
        OMENDB_POISONED,
        "%.400s; whether %s took the place of the former one is not known: reopen the database",
        text, name);
}

/* A copy whose files are sorted, which shares the collections. */
static int manifest_sort_files(struct memory *memory, const struct manifest *manifest,
                               struct manifest *sorted)
{
    *sorted = *manifest;
    sorted->files = memory_array(memory, manifest->file_count, sizeof *sorted->files);
    if (sorted->files == NULL)
        return OMENDB_NOMEM;
    if (manifest->file_count > 0)
        memcpy(sorted->files, manifest->files, manifest->file_count * sizeof *sorted->files);
    sort_array(sorted->files, manifest->file_count, sizeof *sorted->files, manifest_compare_files);
    return OMENDB_OK;
}

OMENDB_INTERNAL int manifest_write(struct storage *storage, const struct manifest *manifest)
{
    struct manifest sorted;
    struct manifest_check check = {&sorted, "the new manifest", OMENDB_MISUSE};
    uint8_t *bytes = NULL;
    size_t length = 0;
    int code = manifest_sort_files(storage->memory, manifest, &sorted);
    if (code != OMENDB_OK)
        return code;
    code = manifest_check_all(&check, storage->memory);
    if (code == OMENDB_OK) {
        length = manifest_bytes(&sorted);
        bytes = memory_zalloc(storage->memory, length);
        code = bytes == NULL ? OMENDB_NOMEM : OMENDB_OK;
    }
    if (code == OMENDB_OK) {
        manifest_encode(&sorted, bytes, length);
        code = manifest_publish(storage, manifest->number, bytes, length);
    }
    memory_free(storage->memory, bytes, length);
    memory_free(storage->memory, sorted.files, sorted.file_count * sizeof *sorted.files);
    return code;
}

/* ------------------------------------------------------------------------------------------------
 * reading */

OMENDB_INTERNAL int manifest_current(struct storage *storage, uint64_t *number)
{
    struct storage_file file;
    char text[MANIFEST_CURRENT_BYTES], expected[MANIFEST_CURRENT_BYTES];
    uint64_t size = 0;
    enum storage_kind kind;
    int code = storage_open(storage, MANIFEST_CURRENT, OMENDB_OPEN_READ, &file);
    if (code != OMENDB_OK)
        return code;
    code = storage_size(storage, &file, &size);
    if (code == OMENDB_OK && size < sizeof text)
        code = storage_read(storage, &file, 0, text, (size_t)size);
    storage_close(storage, &file);
    if (code != OMENDB_OK)
        return code;
    size_t line = 0;
    while (size < sizeof text && line < size && text[line] != '\n')
        line++;
    if (size < sizeof text && line < size) {
        text[line] = '\0';
        int named = storage_parse_name(text, &kind, number) && kind == STORAGE_MANIFEST;
        text[line] = '\n';
        if (named && manifest_current_text(*number, expected) == size &&
            memcmp(text, expected, (size_t)size) == 0)
            return OMENDB_OK;
    }
    return error_set(OMENDB_CORRUPT,
                     "%s (offset 0, %" PRIu64
                     " bytes) does not name a manifest with its checksum; restore from a backup",
                     MANIFEST_CURRENT, size);
}

/* What is left of the bytes while they are decoded. */
struct manifest_input {
    const char *name;
    const uint8_t *bytes;
    size_t length;
    size_t at;
};

static int manifest_too_short(const struct manifest_input *input)
{
    return error_set(
        OMENDB_CORRUPT,
        "%s: offset %zu: its counts do not fit its %zu bytes; restore from a backup, or salvage",
        input->name, input->at, input->length);
}

/* The next `count` items of `item` bytes, or NULL. */
static const uint8_t *manifest_take(struct manifest_input *input, size_t count, size_t item)
{
    const uint8_t *taken = input->bytes + input->at;
    if (count > (input->length - input->at) / item)
        return NULL;
    input->at += count * item;
    return taken;
}

static int manifest_decode_files(struct manifest_input *input, uint32_t count,
                                 struct memory *memory, struct manifest *manifest)
{
    const uint8_t *at = manifest_take(input, count, FORMAT_FILE_BYTES);
    if (at == NULL)
        return manifest_too_short(input);
    manifest->files = memory_array(memory, count, sizeof *manifest->files);
    if (manifest->files == NULL)
        return OMENDB_NOMEM;
    manifest->file_count = count;
    for (uint32_t i = 0; i < count; i++, at += FORMAT_FILE_BYTES) {
        struct manifest_file *file = &manifest->files[i];
        uint32_t kind = format_get32(at + FORMAT_FILE_KIND);
        file->number = format_get64(at + FORMAT_FILE_NUMBER);
        file->size = format_get64(at + FORMAT_FILE_SIZE);
        file->footer_crc = format_get32(at + FORMAT_FILE_CRC);
        file->kind = STORAGE_MANIFEST; /* refused by the check */
        if (kind == FORMAT_KIND_SEGMENT || kind == FORMAT_KIND_OVERLAY)
            file->kind = kind == FORMAT_KIND_SEGMENT ? STORAGE_SEGMENT : STORAGE_OVERLAY;
    }
    return OMENDB_OK;
}

static void manifest_decode_schema(const uint8_t *at, omendb_schema *schema)
{
    memset(schema, 0, sizeof *schema);
    schema->struct_size = sizeof *schema;
    schema->seed = format_get64(at + FORMAT_COLLECTION_SEED);
    schema->dim = format_get32(at + FORMAT_COLLECTION_DIM);
    schema->metric = format_get32(at + FORMAT_COLLECTION_METRIC);
    schema->scalar = format_get32(at + FORMAT_COLLECTION_SCALAR);
    schema->scale = format_get_float(at + FORMAT_COLLECTION_SCALE);
    schema->M = format_get32(at + FORMAT_COLLECTION_M);
    schema->ef_construction = format_get32(at + FORMAT_COLLECTION_EF_CONSTRUCTION);
    schema->ef = format_get32(at + FORMAT_COLLECTION_EF);
}

static int manifest_decode_segments(struct manifest_input *input, uint32_t count,
                                    struct memory *memory, struct manifest_collection *collection)
{
    const uint8_t *at = manifest_take(input, count, FORMAT_REFERENCE_BYTES);
    if (at == NULL)
        return manifest_too_short(input);
    collection->segments = memory_array(memory, count, sizeof *collection->segments);
    if (collection->segments == NULL)
        return OMENDB_NOMEM;
    collection->segment_count = count;
    for (uint32_t i = 0; i < count; i++, at += FORMAT_REFERENCE_BYTES) {
        struct manifest_segment *segment = &collection->segments[i];
        segment->file = format_get64(at + FORMAT_REFERENCE_FILE);
        segment->part = format_get32(at + FORMAT_REFERENCE_PART);
        segment->overlay_part = format_get32(at + FORMAT_REFERENCE_OVERLAY_PART);
        segment->overlay_file = format_get64(at + FORMAT_REFERENCE_OVERLAY_FILE);
    }
    return OMENDB_OK;
}

static int manifest_decode_calibration(struct manifest_input *input, uint32_t length,
                                       struct memory *memory,
                                       struct manifest_collection *collection)
{
    if (length == 0)
        return OMENDB_OK;
    const uint8_t *at = manifest_take(input, length, 1);
    if (at == NULL || !calibration_length_is_legal(length))
        return manifest_too_short(input);
    collection->calibration = memory_alloc(memory, sizeof *collection->calibration);
    if (collection->calibration == NULL)
        return OMENDB_NOMEM;
    /* What is not a curve is refused by the check, as it has no entries. */
    (void)calibration_decode(collection->calibration, at, length);
    return OMENDB_OK;
}

static int manifest_decode_collection(struct manifest_input *input, struct memory *memory,
                                      struct manifest_collection *collection)
{
    const uint8_t *fixed = manifest_take(input, 1, FORMAT_COLLECTION_BYTES);
    if (fixed == NULL)
        return manifest_too_short(input);
    uint32_t name_bytes = format_get32(fixed + FORMAT_COLLECTION_NAME_BYTES);
    if (name_bytes >= sizeof collection->name)
        return manifest_too_short(input);
    const uint8_t *name = manifest_take(input, (size_t)format_align(name_bytes, 8), 1);
    if (name == NULL)
        return manifest_too_short(input);
    collection->id = format_get64(fixed + FORMAT_COLLECTION_ID);
    collection->next_id = format_get64(fixed + FORMAT_COLLECTION_NEXT_ID);
    manifest_decode_schema(fixed, &collection->schema);
    memcpy(collection->name, name, name_bytes);
    /* A NUL inside would let two names look alike. */
    if (strlen(collection->name) != name_bytes)
        return manifest_too_short(input);
    int code = manifest_decode_segments(input, format_get32(fixed + FORMAT_COLLECTION_SEGMENTS),
                                        memory, collection);
    if (code == OMENDB_OK)
        code = manifest_decode_calibration(
            input, format_get32(fixed + FORMAT_COLLECTION_CALIBRATION), memory, collection);
    return code;
}

/* Bytes whose two checksums are right. On failure the caller destroys what was decoded. */
static int manifest_decode(struct manifest_input *input, struct memory *memory,
                           struct manifest *manifest)
{
    const uint8_t *fixed = input->bytes;
    manifest->read_only_features = format_get32(fixed + FORMAT_HEADER_READ_ONLY);
    manifest->commit = format_get64(fixed + FORMAT_MANIFEST_COMMIT);
    manifest->wal_number = format_get64(fixed + FORMAT_MANIFEST_WAL);
    manifest->next_file = format_get64(fixed + FORMAT_MANIFEST_NEXT_FILE);
    manifest->next_collection = format_get64(fixed + FORMAT_MANIFEST_NEXT_COLLECTION);
    input->at = FORMAT_MANIFEST_BYTES;
    int code =
        manifest_decode_files(input, format_get32(fixed + FORMAT_MANIFEST_FILES), memory, manifest);
    if (code != OMENDB_OK)
        return code;
    uint32_t count = format_get32(fixed + FORMAT_MANIFEST_COLLECTIONS);
    if (count > (input->length - input->at) / FORMAT_COLLECTION_BYTES)
        return manifest_too_short(input);
    manifest->collections =
        memory_zalloc(memory, memory_multiply(count, sizeof *manifest->collections));
    if (manifest->collections == NULL)
        return OMENDB_NOMEM;
    manifest->collection_count = count;
    for (uint32_t i = 0; i < count && code == OMENDB_OK; i++)
        code = manifest_decode_collection(input, memory, &manifest->collections[i]);
    if (code == OMENDB_OK && input->at != input->length)
        code = manifest_too_short(input);
    return code;
}

/* Header, length, number and checksum of the bytes. */
static int manifest_verify(const struct manifest_input *input, uint64_t number)
{
    const uint8_t *bytes = input->bytes;
    int code = storage_header_check(input->name, bytes, FORMAT_MAGIC_MANIFEST);
    if (code != OMENDB_OK)
        return code;
    if (format_get64(bytes + FORMAT_MANIFEST_LENGTH) != input->length)
        return error_set(OMENDB_CORRUPT,
                         "%s: has %zu bytes, expected %" PRIu64
                         "; restore from a backup, or salvage",
                         input->name, input->length, format_get64(bytes + FORMAT_MANIFEST_LENGTH));
    if (format_get64(bytes + FORMAT_MANIFEST_NUMBER) != number)
        return error_set(OMENDB_CORRUPT,
                         "%s: its header says number %" PRIu64 ": it is another file, renamed",
                         input->name, format_get64(bytes + FORMAT_MANIFEST_NUMBER));
    uint32_t crc =
        checksum_crc32c(0, bytes + FORMAT_HEADER_BYTES, input->length - FORMAT_HEADER_BYTES);
    uint32_t stored = format_get32(bytes + FORMAT_MANIFEST_CRC);
    if (crc != stored)
        return error_set(OMENDB_CORRUPT,
                         "%s: offset %d: checksum %08" PRIx32 ", expected %08" PRIx32
                         "; restore from a backup, or salvage",
                         input->name, FORMAT_HEADER_BYTES, crc, stored);
    return OMENDB_OK;
}

/* The whole file; *bytes of *length is the caller's to free, also on failure. */
static int manifest_load(struct storage *storage, const char *name, uint8_t **bytes, size_t *length)
{
    struct storage_file file;
    uint64_t size = 0;
    int code = storage_open(storage, name, OMENDB_OPEN_READ, &file);
    if (code != OMENDB_OK)
        return code;
    code = storage_size(storage, &file, &size);
    if (code == OMENDB_OK && (size < FORMAT_MANIFEST_BYTES || size > SIZE_MAX))
        code = error_set(OMENDB_CORRUPT,
                         "%s: has %" PRIu64
                         " bytes, too few for a manifest; restore from a backup, or salvage",
                         name, size);
    if (code == OMENDB_OK) {
        *length = (size_t)size;
        *bytes = memory_alloc(storage->memory, *length);
        code = *bytes == NULL ? OMENDB_NOMEM : storage_read(storage, &file, 0, *bytes, *length);
    }
    storage_close(storage, &file);
    return code;
}

static int manifest_read_number(struct storage *storage, uint64_t number, struct manifest *manifest)
{
    char name[STORAGE_NAME_BYTES];
    uint8_t *bytes = NULL;
    size_t length = 0;
    storage_name(STORAGE_MANIFEST, number, name);
    struct manifest_check check = {manifest, name, OMENDB_CORRUPT};
    memset(manifest, 0, sizeof *manifest);
    manifest->number = number;
    int code = manifest_load(storage, name, &bytes, &length);
    struct manifest_input input = {name, bytes, length, 0};
    if (code == OMENDB_OK)
        code = manifest_verify(&input, number);
    if (code == OMENDB_OK)
        code = manifest_decode(&input, storage->memory, manifest);
    if (code == OMENDB_OK)
        code = manifest_check_all(&check, storage->memory);
    memory_free(storage->memory, bytes, length);
    if (code != OMENDB_OK)
        manifest_destroy(storage->memory, manifest);
    return code;
}

/* A reader beside a writer may find that the manifest is gone, because CURRENT names a newer one by
 * now. */
OMENDB_INTERNAL int manifest_read(struct storage *storage, struct manifest *manifest)
{
    uint64_t number, missing = 0;
    memset(manifest, 0, sizeof *manifest);
    for (int tries = 0; tries < MANIFEST_READ_TRIES; tries++) {
        int code = manifest_current(storage, &number);
        if (code != OMENDB_OK)
            return code;
        if (tries > 0 && number == missing)
            break;
        code = manifest_read_number(storage, number, manifest);
        if (code != OMENDB_NOTFOUND)
            return code;
        missing = number;
    }
    return error_set(OMENDB_CORRUPT,
                     "%s names MANIFEST-%" PRIu64
                     ", which is missing; restore from a backup, or salvage",
                     MANIFEST_CURRENT, missing);
}

#undef MANIFEST_CURRENT
#undef MANIFEST_CURRENT_TMP
#undef MANIFEST_CURRENT_BYTES
#undef MANIFEST_READ_TRIES

/* ==============================================================================================
 * memtable.c
 * ============================================================================================== */

/* memtable.c: see memtable.h. */

/* ==============================================================================================
 * memtable.h
 * ============================================================================================== */

/* memtable.h: the growing segment. Rows are appended in the order of commits and never move; the
 * graph over them is built behind the writers, and the rows not yet in it (the tail) are searched
 * exactly.
 *
 * With codes the graph keeps those, as its rows, and the vectors lie beside it. Their range is
 * chosen before the first row, from what is known then; sealing chooses anew.
 *
 * Rows [0, count) are complete. Rows [0, indexed) are in the graph; a few beyond may be, too, while
 * several threads insert. Guarded by the commit mutex: reserve, append, replacing of rows. Anything
 * else reads with acquire. */
#ifndef OMENDB_MEMTABLE_H
#define OMENDB_MEMTABLE_H

struct memtable {
    _Atomic uint32_t references;
    struct memory *memory;
    struct graph *graph;
    struct code_format codes;   /* step 0: none, the graph keeps the vectors */
    struct rows_store vectors;  /* used when there are codes */
    _Atomic uint32_t inexact;   /* 1: a code is not its vector; set before the row is shown */
    _Atomic uint32_t poor;      /* rows with CODE_POOR */
    uint32_t codes_tried;       /* 1: its vectors gave no range; commit mutex */
    struct rows_store ids;      /* uint64_t */
    struct rows_store begins;   /* uint64_t: commit that added the row */
    struct rows_store previous; /* uint32_t: older row of the same id, or GRAPH_NO_ROW */
    struct idmap idmap;
    struct tombstones *tombstones;
    size_t vector_bytes;
    _Atomic uint32_t count;
    _Atomic uint32_t indexed;
    _Atomic uint32_t claimed;   /* next row to index */
    _Atomic uint32_t inserting; /* threads inside memtable_index */
    _Atomic uint32_t sealed;    /* 1: no append, no further indexing */
    struct rows_store finished; /* uint8_t (atomic): free, taken, linked; moves `indexed` on */
    _Atomic uint64_t newest_begin;
};

/* config: of a graph over the vectors. codes: step 0: none. */
OMENDB_INTERNAL int memtable_create(struct memory *memory, const struct graph_config *config,
                                    const struct code_format *codes, struct memtable **memtable);
OMENDB_INTERNAL struct memtable *memtable_reference(struct memtable *memtable);
OMENDB_INTERNAL void memtable_release(struct memtable *memtable); /* NULL is OK */

/* After it `more` appends cannot fail. OMENDB_NOMEM, OMENDB_TOOBIG. */
OMENDB_INTERNAL int memtable_reserve(struct memtable *memtable, uint32_t more);
OMENDB_INTERNAL void memtable_append(struct memtable *memtable, uint64_t id, const void *vector,
                                     uint64_t commit);

OMENDB_INTERNAL const uint8_t *memtable_vector(const struct memtable *memtable, uint32_t row);
/* Of the rows that `count` showed before the call. */
OMENDB_INTERNAL struct rows_view memtable_vectors(const struct memtable *memtable);
/* Its codes do not fit the rows that came: the graph is of no use. */
OMENDB_INTERNAL int memtable_has_drifted(const struct memtable *memtable);
OMENDB_INTERNAL uint64_t memtable_id(const struct memtable *memtable, uint32_t row);
OMENDB_INTERNAL uint64_t memtable_begin(const struct memtable *memtable, uint32_t row);
/* Newest row of the id, or the one before `row`; GRAPH_NO_ROW: none. */
OMENDB_INTERNAL uint32_t memtable_find(const struct memtable *memtable, uint64_t id);
OMENDB_INTERNAL uint32_t memtable_previous(const struct memtable *memtable, uint32_t row);
/* Number of rows with begin <= commit; they are the first ones. */
OMENDB_INTERNAL uint32_t memtable_visible_rows(const struct memtable *memtable, uint64_t commit);

/* Links up to `rows` further rows with begin <= commit. done: receives how many. Any number of
 * threads. */
OMENDB_INTERNAL int memtable_index(struct memtable *memtable, struct graph_scratch *scratch,
                                   uint64_t commit, uint32_t rows, uint32_t *done);
/* Stops appending and indexing, and waits for the rows under way. */
OMENDB_INTERNAL void memtable_seal(struct memtable *memtable);

#endif

/* memtable.c, continued */

#define MEMTABLE_MANY_POOR 32 /* rows with poor codes; and a twentieth of all */

/* What a row's byte in `finished` says; new ones are zero. */
enum { MEMTABLE_FREE = 0, MEMTABLE_LINKED = 1, MEMTABLE_TAKEN = 2 };

OMENDB_INTERNAL int memtable_create(struct memory *memory, const struct graph_config *config,
                                    const struct code_format *codes, struct memtable **memtable)
{
    struct graph_config walked = *config;
    struct memtable *made = memory_zalloc(memory, sizeof *made);
    *memtable = NULL;
    if (made == NULL)
        return OMENDB_NOMEM;
    made->memory = memory;
    made->vector_bytes = config->vector_bytes;
    made->codes = *codes;
    if (codes->step != 0.0f) {
        walked.vector_bytes = codes_stride(config->dim);
        walked.kernel = codes_kernel(codes);
    }
    atomic_init(&made->references, 1);
    rows_store_init(&made->vectors, memory, config->vector_bytes);
    rows_store_init(&made->ids, memory, sizeof(uint64_t));
    rows_store_init(&made->begins, memory, sizeof(uint64_t));
    rows_store_init(&made->previous, memory, sizeof(uint32_t));
    rows_store_init(&made->finished, memory, sizeof(uint8_t));
    idmap_init(&made->idmap, memory, &made->ids);
    made->tombstones = tombstones_create(memory);
    int code = made->tombstones == NULL
                   ? OMENDB_NOMEM
                   : graph_create(memory, &walked, NULL, NULL, 0, &made->graph);
    if (code != OMENDB_OK) {
        memtable_release(made);
        return code;
    }
    *memtable = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL struct memtable *memtable_reference(struct memtable *memtable)
{
    atomic_fetch_add_explicit(&memtable->references, 1, memory_order_relaxed);
    return memtable;
}

OMENDB_INTERNAL void memtable_release(struct memtable *memtable)
{
    if (memtable == NULL ||
        atomic_fetch_sub_explicit(&memtable->references, 1, memory_order_acq_rel) != 1)
        return;
    graph_destroy(memtable->graph);
    idmap_destroy(&memtable->idmap);
    rows_store_destroy(&memtable->vectors);
    rows_store_destroy(&memtable->ids);
    rows_store_destroy(&memtable->begins);
    rows_store_destroy(&memtable->previous);
    rows_store_destroy(&memtable->finished);
    tombstones_release(memtable->tombstones);
    memory_free(memtable->memory, memtable, sizeof *memtable);
}

OMENDB_INTERNAL int memtable_reserve(struct memtable *memtable, uint32_t more)
{
    uint32_t count = atomic_load_explicit(&memtable->count, memory_order_relaxed);
    if (more > GRAPH_MAX_ROWS - count)
        return error_set(
            OMENDB_TOOBIG,
            "a memtable of %u rows cannot take %u more: at most 2^31; make a checkpoint", count,
            more);
    uint32_t rows = count + more;
    int code = rows_store_reserve(&memtable->ids, rows);
    if (code == OMENDB_OK)
        code = rows_store_reserve(&memtable->begins, rows);
    if (code == OMENDB_OK)
        code = rows_store_reserve(&memtable->previous, rows);
    if (code == OMENDB_OK)
        code = rows_store_reserve(&memtable->finished, rows);
    if (code == OMENDB_OK)
        code = idmap_reserve(&memtable->idmap, more);
    if (code == OMENDB_OK && memtable->codes.step != 0.0f)
        code = rows_store_reserve(&memtable->vectors, rows);
    if (code == OMENDB_OK)
        code = graph_reserve(memtable->graph, rows);
    return code;
}

static void memtable_put_vector(struct memtable *memtable, uint32_t row, const void *vector)
{
    uint8_t *walked = graph_vector(memtable->graph, row);
    struct rows_view vectors = rows_store_view(&memtable->vectors);
    if (memtable->codes.step == 0.0f) {
        memcpy(walked, vector, memtable->vector_bytes);
        return;
    }
    memcpy(rows_at(&vectors, row), vector, memtable->vector_bytes);
    enum code_quality quality = codes_encode(&memtable->codes, vector, walked);
    if (quality != CODE_EXACT)
        atomic_store_explicit(&memtable->inexact, 1, memory_order_relaxed);
    if (quality == CODE_POOR)
        atomic_fetch_add_explicit(&memtable->poor, 1, memory_order_relaxed);
}

OMENDB_INTERNAL void memtable_append(struct memtable *memtable, uint64_t id, const void *vector,
                                     uint64_t commit)
{
    uint32_t row = atomic_load_explicit(&memtable->count, memory_order_relaxed);
    struct rows_view ids = rows_store_view(&memtable->ids),
                     begins = rows_store_view(&memtable->begins);
    struct rows_view previous = rows_store_view(&memtable->previous);
    memtable_put_vector(memtable, row, vector);
    memcpy(rows_at(&ids, row), &id, sizeof id);
    memcpy(rows_at(&begins, row), &commit, sizeof commit);
    /* `previous` is read only by those who found the row in the table, so it is written before. */
    uint32_t older = memtable_find(memtable, id);
    memcpy(rows_at(&previous, row), &older, sizeof older);
    idmap_insert(&memtable->idmap, id, row);
    graph_set_count(memtable->graph, row + 1);
    atomic_store_explicit(&memtable->newest_begin, commit, memory_order_relaxed);
    atomic_store_explicit(&memtable->count, row + 1, memory_order_release);
}

OMENDB_INTERNAL struct rows_view memtable_vectors(const struct memtable *memtable)
{
    struct graph_view view;
    if (memtable->codes.step != 0.0f)
        return rows_store_view(&memtable->vectors);
    graph_get_view(memtable->graph, &view);
    return view.vectors;
}

OMENDB_INTERNAL const uint8_t *memtable_vector(const struct memtable *memtable, uint32_t row)
{
    struct rows_view vectors = memtable_vectors(memtable);
    return rows_at(&vectors, row);
}

OMENDB_INTERNAL int memtable_has_drifted(const struct memtable *memtable)
{
    uint64_t poor = atomic_load_explicit(&memtable->poor, memory_order_relaxed);
    return poor > MEMTABLE_MANY_POOR &&
           poor * 20 > atomic_load_explicit(&memtable->count, memory_order_relaxed);
}

OMENDB_INTERNAL uint64_t memtable_id(const struct memtable *memtable, uint32_t row)
{
    struct rows_view view = rows_store_view(&memtable->ids);
    uint64_t id;
    memcpy(&id, rows_at(&view, row), sizeof id);
    return id;
}

OMENDB_INTERNAL uint64_t memtable_begin(const struct memtable *memtable, uint32_t row)
{
    struct rows_view view = rows_store_view(&memtable->begins);
    uint64_t begin;
    memcpy(&begin, rows_at(&view, row), sizeof begin);
    return begin;
}

OMENDB_INTERNAL uint32_t memtable_find(const struct memtable *memtable, uint64_t id)
{
    return idmap_find(&memtable->idmap, id);
}

OMENDB_INTERNAL uint32_t memtable_previous(const struct memtable *memtable, uint32_t row)
{
    struct rows_view view = rows_store_view(&memtable->previous);
    uint32_t previous;
    memcpy(&previous, rows_at(&view, row), sizeof previous);
    return previous;
}

OMENDB_INTERNAL uint32_t memtable_visible_rows(const struct memtable *memtable, uint64_t commit)
{
    uint32_t low = 0, high = atomic_load_explicit(&memtable->count, memory_order_acquire);
    if (high == 0 || memtable_begin(memtable, high - 1) <= commit)
        return high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (memtable_begin(memtable, middle) <= commit)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static _Atomic uint8_t *memtable_finished(const struct rows_view *finished, uint32_t row)
{
    return (_Atomic uint8_t *)rows_at(finished, row);
}

/* Moves `indexed` over all finished rows. Threads race to move it by one; whoever fails sees the
 * other's value and goes on. */
static void memtable_advance(struct memtable *memtable, uint32_t limit)
{
    struct rows_view finished = rows_store_view(&memtable->finished);
    uint32_t at = atomic_load(&memtable->indexed);
    while (at < limit && atomic_load(memtable_finished(&finished, at)) == MEMTABLE_LINKED) {
        if (atomic_compare_exchange_strong(&memtable->indexed, &at, at + 1))
            at++;
    }
}

OMENDB_INTERNAL int memtable_index(struct memtable *memtable, struct graph_scratch *scratch,
                                   uint64_t commit, uint32_t rows, uint32_t *done)
{
    int code = OMENDB_OK;
    uint32_t limit = memtable_visible_rows(memtable, commit);
    *done = 0;
    atomic_fetch_add(&memtable->inserting, 1);
    while (*done < rows && code == OMENDB_OK && atomic_load(&memtable->sealed) == 0) {
        uint32_t row = atomic_load(&memtable->claimed);
        if (row >= limit)
            break;
        if (!atomic_compare_exchange_weak(&memtable->claimed, &row, row + 1))
            continue;
        struct rows_view finished = rows_store_view(&memtable->finished);
        uint8_t state = MEMTABLE_FREE;
        /* Claimed before: another thread failed at an earlier row and set `claimed` back. */
        if (!atomic_compare_exchange_strong(memtable_finished(&finished, row), &state,
                                            MEMTABLE_TAKEN))
            continue;
        code = graph_insert(memtable->graph, scratch, row);
        if (code != OMENDB_OK) {
            atomic_store(memtable_finished(&finished, row), MEMTABLE_FREE);
            uint32_t next = atomic_load(&memtable->claimed);
            while (next > row && !atomic_compare_exchange_weak(&memtable->claimed, &next, row))
                ;
            break;
        }
        atomic_store(memtable_finished(&finished, row), MEMTABLE_LINKED);
        memtable_advance(memtable, atomic_load_explicit(&memtable->count, memory_order_acquire));
        (*done)++;
    }
    atomic_fetch_sub(&memtable->inserting, 1);
    return code;
}

OMENDB_INTERNAL void memtable_seal(struct memtable *memtable)
{
    atomic_store(&memtable->sealed, 1);
    while (atomic_load(&memtable->inserting) != 0)
        platform_yield();
}

#undef MEMTABLE_MANY_POOR

/* ==============================================================================================
 * version.c
 * ============================================================================================== */

/* version.c: the lives of collections, versions and segments; finding rows by id in them.
 *
 * Reference without a lock. A reader marks a pin slot as busy, loads the collection's version
 * pointer, adds a reference, and frees the slot; who replaces the pointer waits until each slot was
 * seen free once, and only then drops the old version's own reference. Both sides are sequentially
 * consistent: if the reader loaded the old pointer, its mark came before the swap in the one order,
 * so the swapper sees it. The pin lasts for a handful of instructions, so the wait is short and
 * needs no signal.
 *
 * Consistency. A commit number read while a version was current is complete in that version:
 * appends go to memtables in it, and what a later version dropped had ended at or before a commit
 * that was already visible (compact.c). Hence the loop in version_acquire_newest. */

/* ==============================================================================================
 * database.h
 * ============================================================================================== */

/* database.h: what an open database is made of, who owns it and what guards it.
 *
 *   struct omendb      files, log, threads, the list of collections
 *   struct collection  one collection while the database is open; handles point at it
 *   struct version     immutable list of the memtables and segments that make up a collection now;
 *                      reference-counted
 *   struct segment     one part of a segment file, its tombstones, its walkable view;
 *                      reference-counted
 *
 * LOCK ORDER: take from left to right; before waiting for one, let go of those to its right.
 *   maintenance_mutex -> sync leadership -> commit_mutex -> work, txn, sync, list mutex
 *
 *   maintenance_mutex  whoever publishes a manifest: checkpoint, install of a merge; collecting of
 *                      files.
 *   sync leadership    `syncing`: one thread at a time syncs the log, or replaces it. Guarded by
 *                      sync_mutex, waited for on sync_condition.
 *   commit_mutex       appending to the log and applying: memtables, tombstones, catalog, versions,
 *                      next ids. Never held over a sync of commits; held over the small rest when
 *                      the log is rotated.
 *   sync_mutex         durable_commit, poisoned
 *   txn_mutex          the list of transactions
 *   work mutex         queues and jobs (work.c)
 *   list mutex         open databases of the process (database.c)
 *
 * A reader takes none of them: it pins, copies the version pointer, adds a reference, unpins
 * (version.c), then reads `visible_commit`. */
#ifndef OMENDB_DATABASE_H
#define OMENDB_DATABASE_H

#define DATABASE_PIN_SLOTS     64
#define DATABASE_SCRATCH_SLOTS 32
#define DATABASE_RETAINED      64
#define DATABASE_UNPUBLISHED   16
#define DATABASE_RELEASED      (UINT32_C(1) << 31) /* of `children`: the last one closes */

/* What may wait to be done for a collection: rows to link, segments to merge, segments to copy into
 * memory. */
enum work_queue_kind { WORK_INDEX, WORK_MERGE, WORK_HEAT, WORK_QUEUES };

/* Magic numbers of handles, to tell a wrong pointer from a right one where that is possible. */
#define DATABASE_MAGIC   UINT32_C(0x4f6d4442)
#define COLLECTION_MAGIC UINT32_C(0x4f6d436f)
#define TXN_MAGIC        UINT32_C(0x4f6d5478)
#define ROWS_MAGIC       UINT32_C(0x4f6d526f)

/* An open segment or overlay file, shared by the segments in it. */
struct shared_file {
    _Atomic uint32_t references;
    struct segment_file *file;
    struct memory *memory;
    struct manifest_file entry;
};

/* Begin commits of rows that a transaction older than the sealing may not see; immutable. */
struct begin_array {
    struct memory *memory;
    uint32_t rows;
    uint64_t newest;
    uint64_t begin[];
};

struct segment_hot; /* hot.c */

struct segment {
    _Atomic uint32_t references;
    struct memory *memory;
    struct shared_file *file;
    uint32_t part;
    struct part_info info;
    uint32_t links_per_row;
    uint8_t *chunks[6];     /* vectors, links, levels, upper index, upper links, codes */
    struct graph_view full; /* over the vectors; count = rows */
    struct graph_view
        graph; /* to walk: over the codes where there are some; count = indexed rows */
    struct code_format codes;          /* step 0: none */
    _Atomic(struct segment_hot *) hot; /* a copy of what a walk reads, or NULL; set once */
    _Atomic uint32_t walks;            /* counted up to SEGMENT_WALKS_TO_HEAT */
    struct section_range ids, sorted_ids, sorted_rows, filter;
    struct tombstones *tombstones;
    struct begin_array *begins;      /* NULL: visible to everybody */
    struct calibration *calibration; /* NULL: not calibrated */
    /* What may be dropped depends on a limit that only grows: up to this one a look at the
     * tombstones found too little. */
    _Atomic uint64_t not_stale_limit;
    /* Where the manifest finds the tombstones; guarded by maintenance_mutex. */
    uint64_t overlay_file;
    uint32_t overlay_part;
    uint64_t overlay_commit; /* ends up to this one are in the overlay */
};

struct version {
    _Atomic uint32_t references;
    struct memory *memory;
    size_t bytes;            /* allocated */
    uint32_t memtable_count; /* oldest first */
    uint32_t segment_count;
    struct memtable **memtables;
    struct segment **segments;
};

struct collection {
    _Atomic uint32_t references; /* the catalog's, handles', queues' */
    struct omendb *db;
    uint64_t id;
    char name[256];
    omendb_schema schema; /* complete */
    struct scalar_format format;
    const struct kernel *kernel;
    size_t vector_bytes;
    float distance_factor;
    _Atomic uint32_t dropped;
    _Atomic(struct version *)
        version; /* replaced under commit_mutex; the old one is released after a grace period */
    /* Of omendb_calibrate, or NULL; maintenance_mutex to replace. Those before it stay until the
     * collection goes, as a search may be reading one. */
    _Atomic(struct calibration *) calibration;
    struct memtable *active;  /* the last of the version's memtables, or NULL; commit_mutex */
    _Atomic uint64_t next_id; /* commit_mutex */
    /* Queues of work.c, linked through the collections; work mutex. */
    _Atomic uint32_t queued[WORK_QUEUES];
    struct collection *queue_next[WORK_QUEUES];
};

/* Catalog: pointers sorted by name; commit_mutex. */
struct catalog {
    struct collection **items;
    size_t count, capacity;
    size_t last; /* where an id was found last: a log names the same ones again and again */
};

struct pin_slot {
    _Alignas(OMENDB_CACHE_LINE) _Atomic uint32_t busy;
};

struct work_state; /* work.c */

struct omendb {
    uint32_t magic;
    uint64_t process;
    struct memory memory; /* every allocation but this struct itself */
    omendb_allocator allocator;
    omendb_vfs memory_vfs;
    uint32_t in_memory;
    uint32_t read_only;
    uint32_t sync;
    uint64_t wal_limit, tail_limit;
    uint64_t stall_timeout_us;
    void (*log)(void *context, int code, const char *message);
    void *log_context;
    struct storage storage;
    struct storage_file lock_file, manifest_lock; /* the latter: shared, of a read-only opener */

    struct platform_mutex maintenance_mutex, commit_mutex, sync_mutex, txn_mutex;
    struct platform_condition sync_condition;

    /* commit_mutex */
    struct catalog catalog;
    struct wal *wal;        /* NULL: nothing was written yet, in memory, or read-only */
    uint32_t log_published; /* 1: the manifest, or the chain that it begins, leads to `wal` */
    uint64_t appended_commit;
    uint64_t next_collection;
    _Atomic uint64_t
        log_bytes; /* in the current log and those before it that a checkpoint has not replaced */

    /* sync_mutex */
    uint32_t syncing;
    uint64_t durable_commit;
    _Atomic uint32_t poisoned;
    char poison_text[256];

    _Atomic uint64_t visible_commit;
    _Atomic uint64_t checkpoint_commit; /* S of the published manifest */

    /* maintenance_mutex */
    struct manifest published;
    _Atomic uint64_t next_file;
    uint32_t
        retained_overflow; /* 1: one had no place: nothing is collected until the next opening */
    uint64_t retained[DATABASE_RETAINED]; /* older manifests that readers of other processes may
                                             use; 0: free place */
    uint64_t unpublished[DATABASE_UNPUBLISHED]; /* files that are written, or in use, but not in the
                                                   manifest yet; 0: free place */
    _Atomic uint32_t checkpoint_failed;         /* code of the last one, 0: fine */

    /* txn_mutex */
    struct omendb_txn *transactions;
    uint64_t open_transactions;

    _Atomic uint32_t children;     /* handles of collections, transactions, cursors; and
                                      DATABASE_RELEASED */
    _Atomic uint32_t open_cursors; /* of the children */
    _Atomic uint32_t released;
    struct pin_slot pins[DATABASE_PIN_SLOTS];
    _Atomic(struct scratch *) scratch[DATABASE_SCRATCH_SLOTS];
    struct work_state *work;
    _Atomic uint32_t stopping;               /* long work ends early */
    _Atomic uint64_t merge_done, merge_rows; /* of the graph that a merge is building */

    /* A refresh left collections of two manifests side by side: reading is refused until one
     * succeeds. Read-only openers. */
    _Atomic uint32_t half_refreshed;
    /* read-only openers: where replay goes on */
    uint64_t replay_wal, replay_offset;

    _Atomic uint64_t commit_groups, checkpoints, merges, merges_rebuilt;
    struct omendb *next_open; /* of the process-wide list; guarded by its mutex */
    char identity[128];       /* of the directory, while it is open for writing; "": none */
};

struct omendb_collection {
    uint32_t magic;
    omendb *db;
    struct collection *collection;
};

/* ---- version.c: collections, versions, segments and their lives */
OMENDB_INTERNAL int collection_create(omendb *db, uint64_t id, const char *name,
                                      const omendb_schema *schema, struct collection **collection);
OMENDB_INTERNAL struct collection *collection_reference(struct collection *collection);
OMENDB_INTERNAL void collection_release(struct collection *collection);
OMENDB_INTERNAL void collection_graph_config(const struct collection *collection,
                                             struct graph_config *config);

/* Fills defaults and checks ranges; OMENDB_INVALID names the field. */
OMENDB_INTERNAL int schema_complete(const omendb_schema *given, omendb_schema *complete);
/* Fields of `given` that are not 0 must equal; OMENDB_MISMATCH names the field. */
OMENDB_INTERNAL int schema_compare(const omendb_schema *stored, const omendb_schema *given,
                                   const char *name);

/* Index of the name in the catalog, or where it would go with *found = 0. commit_mutex. */
OMENDB_INTERNAL size_t catalog_find(const struct catalog *catalog, const char *name, int *found);
OMENDB_INTERNAL struct collection *catalog_by_id(struct catalog *catalog, uint64_t id);
OMENDB_INTERNAL int catalog_reserve(omendb *db, struct catalog *catalog, size_t more);
OMENDB_INTERNAL void
catalog_insert(struct catalog *catalog,
               struct collection *collection); /* takes the reference; reserved before */
OMENDB_INTERNAL void
catalog_remove(struct catalog *catalog,
               struct collection *collection); /* gives the reference back to the caller */

/* A reference to the current version, without a lock. */
OMENDB_INTERNAL struct version *version_acquire(struct collection *collection);
OMENDB_INTERNAL void version_release(struct version *version);
/* A new version with room; its items are not yet referenced. NULL: no memory. */
OMENDB_INTERNAL struct version *version_create(struct memory *memory, uint32_t memtables,
                                               uint32_t segments);
/* Makes it current and releases the old one after the grace period. commit_mutex. */
OMENDB_INTERNAL void version_install(struct collection *collection, struct version *version);
/* Waits until no reader is between loading a pointer and referencing what it points at. */
OMENDB_INTERNAL void version_wait_for_readers(omendb *db);
/* Consistent pair of a version and the commit to read at. */
OMENDB_INTERNAL struct version *version_acquire_newest(struct collection *collection,
                                                       uint64_t *commit);

OMENDB_INTERNAL int shared_file_open(omendb *db, const struct manifest_file *entry,
                                     struct shared_file **file);
OMENDB_INTERNAL struct shared_file *shared_file_reference(struct shared_file *file);
OMENDB_INTERNAL void shared_file_release(struct shared_file *file);

/* tombstones, begins: references taken over on success; tombstones NULL: a new empty object. */
OMENDB_INTERNAL int segment_open(omendb *db, const struct collection *collection,
                                 struct shared_file *file, uint32_t part,
                                 struct tombstones *tombstones, struct begin_array *begins,
                                 struct segment **segment);
OMENDB_INTERNAL struct segment *segment_reference(struct segment *segment);
OMENDB_INTERNAL void segment_release(struct segment *segment);
OMENDB_INTERNAL int segment_id(const struct segment *segment, uint32_t row, uint64_t *id);
OMENDB_INTERNAL int segment_vector(const struct segment *segment, uint32_t row,
                                   const uint8_t **vector);
/* Rows with this id, one after the other: *cursor starts at 0; *row = GRAPH_NO_ROW at the end. */
OMENDB_INTERNAL int segment_find(const struct segment *segment, uint64_t id, uint64_t *cursor,
                                 uint32_t *row);
OMENDB_INTERNAL int segment_row_visible(const struct segment *segment, uint32_t row,
                                        uint64_t commit);

/* Where a row is. */
struct location {
    struct memtable *memtable; /* or */
    struct segment *segment;
    uint32_t row;
};
/* The live row of `id` in the newest state (commit_mutex), or both pointers NULL. *newest_change:
 * largest commit known to have touched the id (0: none known). */
OMENDB_INTERNAL int version_locate_live(const struct version *version, uint64_t id,
                                        struct location *location, uint64_t *newest_change);
/* The row of `id` that is visible at `commit`, or both pointers NULL. */
OMENDB_INTERNAL int version_locate(const struct version *version, uint64_t id, uint64_t commit,
                                   struct location *location);
OMENDB_INTERNAL int location_vector(const struct location *location, const uint8_t **vector);
OMENDB_INTERNAL int version_count(const struct version *version, uint64_t commit, uint64_t *count);
/* Bytes of vectors not in a graph: of the newest memtable, and of everything. */
OMENDB_INTERNAL uint64_t version_growing_tail_bytes(const struct version *version,
                                                    size_t vector_bytes);
OMENDB_INTERNAL uint64_t version_unindexed_bytes(const struct version *version,
                                                 size_t vector_bytes);

/* Working memory of one search, merge or indexing step at a time; pooled. */
struct search_hit {
    float distance;
    uint64_t id;
};
struct scratch {
    struct memory *memory;
    struct graph_scratch *graph;
    struct graph_hit *hits; /* of one source */
    size_t hit_capacity;
    struct search_hit *found, *best, *merged; /* of one source, of all before it, of both */
    size_t found_capacity;
    uint8_t *vector; /* the query in the stored type */
    size_t vector_capacity;
    uint8_t *code; /* the query as a code */
    size_t code_capacity;
};
OMENDB_INTERNAL struct scratch *scratch_take(omendb *db);               /* NULL: no memory */
OMENDB_INTERNAL void scratch_give(omendb *db, struct scratch *scratch); /* NULL is OK */
OMENDB_INTERNAL void scratch_destroy(struct scratch *scratch);          /* NULL is OK */
OMENDB_INTERNAL int scratch_reserve(struct scratch *scratch, size_t hits, size_t found,
                                    size_t vector_bytes);
OMENDB_INTERNAL int scratch_reserve_code(struct scratch *scratch, size_t bytes);
OMENDB_INTERNAL void database_log(omendb *db, int code, const char *message);

/* ---- hot.c */
#define SEGMENT_WALKS_TO_HEAT 100
/* Whether a copy would help, and there is memory. */
OMENDB_INTERNAL int hot_is_wanted(const omendb *db, const struct segment *segment);
/* OMENDB_OK also where another thread was first. */
OMENDB_INTERNAL int hot_make(omendb *db, struct segment *segment);
OMENDB_INTERNAL void hot_destroy(struct memory *memory, struct segment_hot *hot); /* NULL is OK */
/* The view to walk: of the copy, or of the file. As long as the segment. */
OMENDB_INTERNAL const struct graph_view *hot_view(const struct segment *segment);
OMENDB_INTERNAL uint64_t hot_size(const struct segment *segment);

/* ---- commit.c */
enum change_kind {
    CHANGE_ADD = 1,
    CHANGE_PUT = 2,
    CHANGE_DELETE = 3,
    CHANGE_CREATE = 4,
    CHANGE_DROP = 5
};

/* One operation over many records of one collection. */
struct change {
    uint32_t kind;
    uint32_t count;
    struct collection *collection; /* CREATE: the new one; a reference of the caller's */
    uint64_t *ids;                 /* caller's; automatic ones are filled in when `automatic` */
    const uint8_t *vectors;        /* count * vector_bytes, stored type */
    int automatic;
    int skip_missing; /* DELETE: absent ids are left out of the commit instead of OMENDB_NOTFOUND */
    uint32_t affected; /* out: DELETE: how many existed */
};

/* Memtables of a collection: one, others where the one before began without codes and rows enough
 * for them have come, or where its codes no longer fit the rows; and one more after each checkpoint
 * that failed. The first of those that come after this many has to do. */
#define COMMIT_MAX_MEMTABLES 8

/* Validates, logs, applies and, as the sync mode says, waits until the commit is durable and
 * visible. snapshot: UINT64_MAX, or OMENDB_CONFLICT where an id changed after it. */
OMENDB_INTERNAL int commit_changes(omendb *db, struct change *changes, size_t count,
                                   uint64_t snapshot);
/* OMENDB_EXISTS, OMENDB_FULL with their sentences; the row is named where there are several. */
OMENDB_INTERNAL int commit_refuse_taken_id(const struct change *change, uint32_t index);
OMENDB_INTERNAL int commit_refuse_automatic_ids(const struct collection *collection, uint64_t next);
/* Applies a logged commit to memory (recovery, read-only openers). */
OMENDB_INTERNAL int commit_replay(omendb *db, uint64_t commit, const uint8_t *payload, size_t size);
/* Makes `commit` and all before it durable and visible, whatever the sync mode when `force`. */
OMENDB_INTERNAL int commit_wait(omendb *db, uint64_t commit);
OMENDB_INTERNAL int commit_check_writable(omendb *db);
/* Leadership of syncing: begin waits for the thread that has it. */
OMENDB_INTERNAL void commit_lead(omendb *db);
OMENDB_INTERNAL void commit_unlead(omendb *db);
OMENDB_INTERNAL int commit_poison(omendb *db, int code);
/* As leader: syncs what is in the log now and publishes it. */
OMENDB_INTERNAL int commit_sync_led(omendb *db);
OMENDB_INTERNAL void commit_publish(omendb *db, uint64_t commit);
/* ---- checkpoint.c */
/* Seals all memtables and tombstones into files and publishes them; the log before it is dropped.
 * force = 0: only when the log is long enough. */
OMENDB_INTERNAL int checkpoint_run(omendb *db, int force);
/* Publishes what the versions hold now, as of the last checkpoint's commit. maintenance_mutex. */
OMENDB_INTERNAL int checkpoint_republish(omendb *db);
/* Writes ids, their sorted index and filter of a part; fills the fields of `info` that follow from
 * them. */
OMENDB_INTERNAL int checkpoint_write_ids(struct segment_writer *writer, struct memory *memory,
                                         const uint64_t *ids, uint32_t rows,
                                         struct part_info *info);
/* Unlinks the files that neither the manifest nor a reader of another process needs.
 * maintenance_mutex. */
OMENDB_INTERNAL void checkpoint_collect(omendb *db);
/* A file is about to be written outside of maintenance_mutex, or is done with. */
OMENDB_INTERNAL int checkpoint_protect(
    omendb *db, uint64_t *number); /* gives the next number; OMENDB_BUSY when there are too many */
OMENDB_INTERNAL void checkpoint_unprotect(omendb *db, uint64_t number);
/* What a part says of its collection, and of the graph in it. */
OMENDB_INTERNAL void checkpoint_describe(const struct collection *collection,
                                         struct part_info *info);
OMENDB_INTERNAL void checkpoint_describe_graph(const struct graph_view *view, uint32_t indexed_rows,
                                               struct part_info *info);
/* Codes of rows [0, rows), one after the other, of codes_stride bytes (memory_free_aligned); fills
 * the fields of `info` that belong to them. *codes is NULL, and step 0, where codes do not apply or
 * there is no memory for them: a graph is then walked over the vectors. */
OMENDB_INTERNAL void checkpoint_make_codes(const struct collection *collection,
                                           const struct rows_view *vectors, uint32_t rows,
                                           struct part_info *info, uint8_t **codes);
/* Chooses a range from rows spread over all; step 0: there is none. */
OMENDB_INTERNAL int checkpoint_choose_codes(const struct collection *collection,
                                            const struct rows_view *vectors, uint32_t rows,
                                            struct code_format *format);
/* What info says of the codes. */
OMENDB_INTERNAL struct code_format checkpoint_code_format(const struct collection *collection,
                                                          const struct part_info *info);
/* The sections of a graph, for info->indexed_rows rows. */
OMENDB_INTERNAL int checkpoint_write_links(struct segment_writer *writer,
                                           const struct graph_view *view,
                                           const struct part_info *info);
OMENDB_INTERNAL struct begin_array *begin_array_create(struct memory *memory, uint32_t rows);
OMENDB_INTERNAL void begin_array_destroy(struct begin_array *begins); /* NULL is OK */

/* ---- recover.c */
OMENDB_INTERNAL int recover_open(omendb *db, int must_exist);
OMENDB_INTERNAL int recover_refresh(omendb *db);

/* ---- compact.c */
/* Merges what the policy picks in these collections (small ones share a file); *merged = 0: nothing
 * to do. The caller has the right to merge (work_merge_begin). OMENDB_DONE: cancelled by `progress`
 * or by closing. */
#define COMPACT_BATCH 64
OMENDB_INTERNAL int compact_run(omendb *db, struct collection *const *collections, size_t count,
                                int everything,
                                int (*progress)(void *context, uint64_t done, uint64_t total),
                                void *context, int *merged);
OMENDB_INTERNAL int compact_wanted(struct collection *collection);
/* Bytes that a merge of what is picked would write: small ones are gathered into one file. */
#define COMPACT_SMALL_BYTES (UINT64_C(4) << 20)

/* ---- work.c */
OMENDB_INTERNAL int work_create(omendb *db, int32_t threads); /* queues only */
OMENDB_INTERNAL int work_start(omendb *db);                   /* the threads */
OMENDB_INTERNAL void work_stop(omendb *db);
OMENDB_INTERNAL void work_destroy(omendb *db);
/* Something may be to do in the background. */
OMENDB_INTERNAL void work_notice_index(struct collection *collection);
OMENDB_INTERNAL void work_notice_merge(struct collection *collection);
OMENDB_INTERNAL void work_notice_heat(struct collection *collection);
OMENDB_INTERNAL void work_notice_log(omendb *db);
/* Runs fn(context, i) for i in [0, count) over this thread and idle workers; the first error stops
 * it and is returned. */
OMENDB_INTERNAL int work_parallel(omendb *db, uint64_t count,
                                  int (*fn)(void *context, uint64_t index), void *context);
/* checkpoint_run with all the memory there is. */
OMENDB_INTERNAL int work_checkpoint(omendb *db, int force);
/* After OMENDB_NOMEM under memory_limit: makes a checkpoint, or waits for a merge, where that gives
 * memory back; 1: try again. Else the sentence stays. *waited: 0 at first; stall_timeout bounds it.
 */
OMENDB_INTERNAL int work_relieve(omendb *db, uint64_t *waited);
/* Slows a writer that is about to add `bytes` to the collection; OMENDB_BUSY after stall_timeout.
 */
OMENDB_INTERNAL int work_throttle(struct collection *collection, uint64_t bytes);
/* One unit of background work in this thread; *did = 0: there was none. */
OMENDB_INTERNAL int work_step(omendb *db, int *did);
/* The right to merge, which one thread has at a time. While another thread has it, `progress`
 * (NULL: none) is told how far that one is; OMENDB_DONE when it says to stop. */
OMENDB_INTERNAL int work_merge_begin(omendb *db,
                                     int (*progress)(void *context, uint64_t done, uint64_t total),
                                     void *context);
OMENDB_INTERNAL void work_merge_end(omendb *db);

/* ---- search.c */
/* A graph to walk and the vectors by which its hits are compared. */
struct search_target {
    struct graph_view full;   /* the vectors; count = rows that can be scanned */
    struct graph_view walk;   /* of indexed rows, maybe over codes */
    struct code_format codes; /* step 0: none */
    int codes_are_exact;
};
/* A walk as a search does it, for measuring: the rows found, by the distances of their vectors,
 * into scratch->hits, which has places for effort->ef. vector: stored type. effort->k are wanted;
 * more may come, in an order that is less precise. */
OMENDB_INTERNAL int search_walk_target(struct collection *collection,
                                       const struct search_target *target, const uint8_t *vector,
                                       struct scratch *scratch, const struct graph_effort *effort,
                                       size_t *count);
/* Stored, of all sources, deleted ones included; *largest: of one. */
OMENDB_INTERNAL uint64_t search_total_rows(const struct version *version, uint64_t *largest);
/* The collection's curve, while it is in force for the version; or NULL. */
OMENDB_INTERNAL const struct calibration *search_own_curve(const struct collection *collection,
                                                           const struct version *version);
/* What one call asks, in the engine's terms. */
struct search_request {
    struct collection *collection;
    const struct version *version;
    uint64_t commit;
    omendb_txn *txn;       /* NULL, or a writing one: its own changes count */
    const uint8_t *vector; /* stored type */
    uint64_t excluded_id;  /* OMENDB_ID_AUTO: none */
    size_t k, ef;
    int exact, use_radius;
    float radius;
    float recall;            /* 0: by ef and stretch */
    uint64_t deadline_us;    /* by the clock of the vfs; 0: none */
    float stretch;           /* of graph_effort; 0: ef alone decides */
    uint64_t largest_source; /* filled by search_run: rows of the largest memtable or segment */
};
/* OMENDB_TIMEOUT when it is past. */
OMENDB_INTERNAL int search_check_deadline(const struct search_request *request);
OMENDB_INTERNAL int search_run(const struct search_request *request, struct scratch *scratch,
                               uint64_t *ids, float *distances, size_t *count,
                               omendb_explain *explain);

/* ---- calibrate.c */
/* Rows that a merge has not inserted yet: first + i * step for i < count. */
struct calibrate_held {
    uint32_t first, step, count;
};
/* Those to hold back of the rows [first, rows). count 0: too few to tell anything. */
OMENDB_INTERNAL void calibrate_choose(uint32_t first, uint32_t rows, struct calibrate_held *held);
static inline int calibrate_is_held(const struct calibrate_held *held, uint32_t row)
{
    if (held->count == 0 || row < held->first)
        return 0;
    uint32_t at = row - held->first;
    return at % held->step == 0 && at / held->step < held->count;
}
/* The curve of a graph of `rows` rows that lacks only the held ones. No entries: there was no
 * memory for it. OMENDB_DONE: the database is closing. */
OMENDB_INTERNAL int calibrate_held_rows(struct collection *collection,
                                        const struct search_target *target, uint32_t rows,
                                        const struct calibrate_held *held,
                                        struct calibration *calibration);
/* omendb_calibrate, arguments checked; queries in the stored type, one after the other. */
OMENDB_INTERNAL int
calibrate_collection(struct collection *collection, const uint8_t *queries, uint32_t count,
                     int (*progress)(void *context, uint64_t done, uint64_t total), void *context);

/* ---- txn.c */
struct txn_write {
    struct collection *collection; /* referenced */
    uint64_t id;
    uint8_t *vector; /* stored type; NULL: deleted */
    uint32_t added;  /* 1: the id was free at the snapshot */
};

/* A cursor that reads a transaction's own changes; the transaction tells it when they go. */
struct txn_cursor {
    struct txn_cursor *next;
    int ended;
};

struct omendb_txn {
    uint32_t magic;
    omendb *db;
    int mode;
    uint64_t snapshot;
    struct omendb_txn *next, *previous; /* txn_mutex */
    struct txn_write *writes;
    size_t write_count, write_capacity;
    uint32_t *table; /* index + 1 of writes by collection and id; open addressing */
    size_t table_slots;
    struct txn_cursor *cursors;
};

OMENDB_INTERNAL int txn_begin(omendb *db, int mode, omendb_txn **txn);
OMENDB_INTERNAL int txn_commit(omendb_txn *txn);
OMENDB_INTERNAL void txn_end(omendb_txn *txn); /* frees; NULL is OK */
/* The transaction's own change of a record, or NULL. */
OMENDB_INTERNAL const struct txn_write *txn_find(const omendb_txn *txn,
                                                 const struct collection *collection, uint64_t id);
/* The cursor is told when the transaction ends, unless it is removed before. */
OMENDB_INTERNAL void txn_add_cursor(omendb_txn *txn, struct txn_cursor *cursor);
OMENDB_INTERNAL void txn_remove_cursor(omendb_txn *txn, struct txn_cursor *cursor);
/* Takes a validated change over (copies vectors). */
OMENDB_INTERNAL int txn_apply(omendb_txn *txn, struct change *change);
/* Smallest commit that a transaction reads at, at most the newest visible one. */
OMENDB_INTERNAL uint64_t txn_oldest(omendb *db);

/* ---- check.c, backup.c */
OMENDB_INTERNAL int check_run(omendb *db, void (*report)(void *context, const char *line),
                              void *context, uint64_t *problems);
OMENDB_INTERNAL int backup_run(omendb *db, const char *path);

#endif

/* version.c, continued */

/* ------------------------------------------------------------------ schema */

struct schema_range {
    const char *name;
    uint32_t value, low, high;
};

static int schema_check_ranges(const omendb_schema *schema)
{
    const struct schema_range ranges[] = {
        {"dim", schema->dim, 1, 65535},
        {"M", schema->M, 2, 256},
        {"ef_construction", schema->ef_construction, 8, 10000},
        {"ef", schema->ef, 1, 100000},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        if (ranges[i].value < ranges[i].low || ranges[i].value > ranges[i].high)
            return error_set(OMENDB_INVALID, "schema.%s is %u; it must be between %u and %u",
                             ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].high);
    }
    return OMENDB_OK;
}

static int schema_check_names(const omendb_schema *schema)
{
    if (schema->metric > OMENDB_HAMMING)
        return error_set(
            OMENDB_INVALID,
            "schema.metric is %u; there are l2 (0), cosine (1), ip (2) and hamming (3)",
            schema->metric);
    if (schema->scalar > OMENDB_B1)
        return error_set(
            OMENDB_INVALID,
            "schema.scalar is %u; there are f32 (0), f16 (1), bf16 (2), i8 (3), u8 (4) "
            "and b1 (5)",
            schema->scalar);
    return OMENDB_OK;
}

OMENDB_INTERNAL int schema_complete(const omendb_schema *given, omendb_schema *complete)
{
    omendb_schema_init(complete);
    complete->dim = given->dim;
    complete->metric = given->metric;
    complete->scalar = given->scalar;
    complete->scale = given->scale == 0.0f ? 1.0f : given->scale;
    complete->M = given->M == 0 ? 16 : given->M;
    complete->ef_construction = given->ef_construction == 0 ? 200 : given->ef_construction;
    complete->ef = given->ef == 0 ? 64 : given->ef;
    complete->seed = given->seed;
    int code = schema_check_ranges(complete);
    if (code == OMENDB_OK)
        code = schema_check_names(complete);
    if (code != OMENDB_OK)
        return code;
    if (kernels_for((omendb_scalar)complete->scalar, (omendb_metric)complete->metric) == NULL)
        return error_set(OMENDB_INVALID,
                         "metric %s does not go with scalar %s: hamming is for b1, and b1 only for "
                         "it",
                         omendb_metric_name((int)complete->metric),
                         omendb_scalar_name((int)complete->scalar));
    if (complete->scale != 1.0f && complete->scalar != OMENDB_I8 && complete->scalar != OMENDB_U8)
        return error_set(OMENDB_INVALID, "schema.scale is %g; only stored i8 and u8 have a scale",
                         (double)complete->scale);
    if (!(complete->scale > 0.0f) || complete->scale > 1e30f)
        return error_set(OMENDB_INVALID, "schema.scale is %g; it must be positive and at most 1e30",
                         (double)complete->scale);
    return OMENDB_OK;
}

static int schema_name_differs(const char *name, const char *field, const char *stored,
                               const char *given)
{
    return error_set(
        OMENDB_MISMATCH,
        "collection \"%s\" was made with %s %s, not %s; open it with the stored schema or NULL",
        name, field, stored, given);
}

static int schema_differs(const char *name, const char *field, double stored, double given)
{
    char numbers[2][32];
    snprintf(numbers[0], sizeof numbers[0], "%g", stored);
    snprintf(numbers[1], sizeof numbers[1], "%g", given);
    return schema_name_differs(name, field, numbers[0], numbers[1]);
}

OMENDB_INTERNAL int schema_compare(const omendb_schema *stored, const omendb_schema *given,
                                   const char *name)
{
    if (given->dim != 0 && given->dim != stored->dim)
        return schema_differs(name, "dim", stored->dim, given->dim);
    if (given->metric != stored->metric)
        return schema_name_differs(name, "metric", omendb_metric_name((int)stored->metric),
                                   omendb_metric_name((int)given->metric));
    if (given->scalar != stored->scalar)
        return schema_name_differs(name, "scalar", omendb_scalar_name((int)stored->scalar),
                                   omendb_scalar_name((int)given->scalar));
    if (given->scale != 0.0f && given->scale != stored->scale)
        return schema_differs(name, "scale", (double)stored->scale, (double)given->scale);
    if (given->M != 0 && given->M != stored->M)
        return schema_differs(name, "M", stored->M, given->M);
    if (given->ef_construction != 0 && given->ef_construction != stored->ef_construction)
        return schema_differs(name, "ef_construction", stored->ef_construction,
                              given->ef_construction);
    if (given->ef != 0 && given->ef != stored->ef)
        return schema_differs(name, "ef", stored->ef, given->ef);
    if (given->seed != 0 && given->seed != stored->seed)
        return schema_differs(name, "seed", (double)stored->seed, (double)given->seed);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ collections */

/* A curve and those that it replaced. */
static void calibration_destroy_all(struct memory *memory, struct calibration *calibration)
{
    while (calibration != NULL) {
        struct calibration *older = calibration->older;
        memory_free(memory, calibration, sizeof *calibration);
        calibration = older;
    }
}

OMENDB_INTERNAL int collection_create(omendb *db, uint64_t id, const char *name,
                                      const omendb_schema *schema, struct collection **collection)
{
    *collection = NULL;
    struct collection *made = memory_zalloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->db = db;
    made->id = id;
    atomic_init(&made->references, 1);
    memcpy(made->name, name, strlen(name) + 1);
    made->schema = *schema;
    made->format = (struct scalar_format){
        (omendb_scalar)schema->scalar, (omendb_metric)schema->metric, schema->dim, schema->scale};
    made->kernel = kernels_for(made->format.scalar, made->format.metric);
    made->vector_bytes = scalar_bytes(made->format.scalar, schema->dim);
    made->distance_factor = scalar_distance_factor(&made->format);
    struct version *version = version_create(&db->memory, 0, 0);
    if (version == NULL) {
        memory_free(&db->memory, made, sizeof *made);
        return OMENDB_NOMEM;
    }
    atomic_init(&made->version, version);
    *collection = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL struct collection *collection_reference(struct collection *collection)
{
    atomic_fetch_add_explicit(&collection->references, 1, memory_order_relaxed);
    return collection;
}

OMENDB_INTERNAL void collection_release(struct collection *collection)
{
    if (collection == NULL ||
        atomic_fetch_sub_explicit(&collection->references, 1, memory_order_acq_rel) != 1)
        return;
    version_release(atomic_load_explicit(&collection->version, memory_order_relaxed));
    calibration_destroy_all(&collection->db->memory, atomic_load(&collection->calibration));
    memory_free(&collection->db->memory, collection, sizeof *collection);
}

OMENDB_INTERNAL void collection_graph_config(const struct collection *collection,
                                             struct graph_config *config)
{
    config->M = collection->schema.M;
    config->ef_construction = collection->schema.ef_construction;
    config->seed = collection->schema.seed;
    config->dim = collection->schema.dim;
    config->vector_bytes = collection->vector_bytes;
    config->kernel = collection->kernel;
}

OMENDB_INTERNAL size_t catalog_find(const struct catalog *catalog, const char *name, int *found)
{
    size_t low = 0, high = catalog->count;
    *found = 0;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(catalog->items[middle]->name, name);
        if (order == 0) {
            *found = 1;
            return middle;
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

OMENDB_INTERNAL struct collection *catalog_by_id(struct catalog *catalog, uint64_t id)
{
    if (catalog->last < catalog->count && catalog->items[catalog->last]->id == id)
        return catalog->items[catalog->last];
    for (size_t i = 0; i < catalog->count; i++) {
        if (catalog->items[i]->id == id) {
            catalog->last = i;
            return catalog->items[i];
        }
    }
    return NULL;
}

OMENDB_INTERNAL int catalog_reserve(omendb *db, struct catalog *catalog, size_t more)
{
    if (catalog->count + more <= catalog->capacity)
        return OMENDB_OK;
    size_t capacity = catalog->capacity * 2 + more;
    struct collection **items =
        memory_resize(&db->memory, catalog->items, catalog->capacity * sizeof *items,
                      memory_multiply(capacity, sizeof *items));
    if (items == NULL)
        return OMENDB_NOMEM;
    catalog->items = items;
    catalog->capacity = capacity;
    return OMENDB_OK;
}

OMENDB_INTERNAL void catalog_insert(struct catalog *catalog, struct collection *collection)
{
    int found;
    size_t at = catalog_find(catalog, collection->name, &found);
    memmove(catalog->items + at + 1, catalog->items + at,
            (catalog->count - at) * sizeof *catalog->items);
    catalog->items[at] = collection;
    catalog->count++;
}

OMENDB_INTERNAL void catalog_remove(struct catalog *catalog, struct collection *collection)
{
    for (size_t i = 0; i < catalog->count; i++) {
        if (catalog->items[i] != collection)
            continue;
        memmove(catalog->items + i, catalog->items + i + 1,
                (catalog->count - i - 1) * sizeof *catalog->items);
        catalog->count--;
        return;
    }
}

/* ------------------------------------------------------------------ versions */

static size_t version_bytes(uint32_t memtables, uint32_t segments)
{
    return sizeof(struct version) + memtables * sizeof(struct memtable *) +
           segments * sizeof(struct segment *);
}

OMENDB_INTERNAL struct version *version_create(struct memory *memory, uint32_t memtables,
                                               uint32_t segments)
{
    size_t bytes = version_bytes(memtables, segments);
    struct version *version = memory_zalloc(memory, bytes);
    if (version == NULL)
        return NULL;
    version->bytes = bytes;
    atomic_init(&version->references, 1);
    version->memory = memory;
    version->memtable_count = memtables;
    version->segment_count = segments;
    version->memtables = (struct memtable **)(version + 1);
    version->segments = (struct segment **)(version->memtables + memtables);
    return version;
}

OMENDB_INTERNAL void version_release(struct version *version)
{
    if (version == NULL ||
        atomic_fetch_sub_explicit(&version->references, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < version->memtable_count; i++)
        memtable_release(version->memtables[i]);
    for (uint32_t i = 0; i < version->segment_count; i++)
        segment_release(version->segments[i]);
    memory_free(version->memory, version, version->bytes);
}

static struct pin_slot *version_pin(omendb *db)
{
    /* Stacks of threads differ in their pages: a cheap way to begin at different slots. */
    uint32_t at = (uint32_t)(idmap_mix((uintptr_t)&db >> 12) % DATABASE_PIN_SLOTS);
    while (atomic_exchange(&db->pins[at].busy, 1) != 0)
        at = (at + 1) % DATABASE_PIN_SLOTS;
    return &db->pins[at];
}

OMENDB_INTERNAL struct version *version_acquire(struct collection *collection)
{
    struct pin_slot *pin = version_pin(collection->db);
    struct version *version = atomic_load(&collection->version);
    atomic_fetch_add_explicit(&version->references, 1, memory_order_relaxed);
    atomic_store(&pin->busy, 0);
    return version;
}

OMENDB_INTERNAL void version_wait_for_readers(omendb *db)
{
    for (size_t i = 0; i < DATABASE_PIN_SLOTS; i++) {
        for (uint32_t spins = 0; atomic_load(&db->pins[i].busy) != 0; spins++) {
            if (spins < 64)
                platform_pause();
            else
                platform_yield();
        }
    }
}

OMENDB_INTERNAL void version_install(struct collection *collection, struct version *version)
{
    struct version *old = atomic_exchange(&collection->version, version);
    version_wait_for_readers(collection->db);
    version_release(old);
}

OMENDB_INTERNAL struct version *version_acquire_newest(struct collection *collection,
                                                       uint64_t *commit)
{
    for (;;) {
        struct version *version = version_acquire(collection);
        *commit = atomic_load(&collection->db->visible_commit);
        if (atomic_load(&collection->version) == version)
            return version;
        version_release(version);
    }
}

/* ------------------------------------------------------------------ segments */

OMENDB_INTERNAL int shared_file_open(omendb *db, const struct manifest_file *entry,
                                     struct shared_file **file)
{
    *file = NULL;
    struct shared_file *made = memory_zalloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    atomic_init(&made->references, 1);
    made->memory = &db->memory;
    made->entry = *entry;
    int code = segment_file_open(&db->storage, (enum storage_kind)entry->kind, entry->number,
                                 entry->size, entry->footer_crc, &made->file);
    if (code != OMENDB_OK) {
        memory_free(&db->memory, made, sizeof *made);
        return code;
    }
    *file = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL struct shared_file *shared_file_reference(struct shared_file *file)
{
    atomic_fetch_add_explicit(&file->references, 1, memory_order_relaxed);
    return file;
}

OMENDB_INTERNAL void shared_file_release(struct shared_file *file)
{
    if (file == NULL || atomic_fetch_sub_explicit(&file->references, 1, memory_order_acq_rel) != 1)
        return;
    segment_file_close(file->file);
    memory_free(file->memory, file, sizeof *file);
}

static int segment_expect(const struct segment_file *file, uint32_t part, enum section_type type,
                          uint64_t expected)
{
    struct section_range range = segment_section(file, part, type);
    if (range.length == expected)
        return OMENDB_OK;
    return error_set(
        OMENDB_CORRUPT,
        "seg-%llu: part %u: section %d has %llu bytes, expected %llu; restore from a backup",
        (unsigned long long)file->number, part, (int)type, (unsigned long long)range.length,
        (unsigned long long)expected);
}

/* A step that is no number that codes_choose gives is not one to compute with. */
static int segment_has_codes(const struct part_info *info)
{
    return info->code_step > 0.0f && info->code_step <= FLT_MAX;
}

static int segment_check_layout(const struct collection *collection,
                                const struct segment_file *file, uint32_t part)
{
    const struct part_info *info = &file->parts[part];
    uint64_t rows = info->rows, indexed = info->indexed_rows;
    if (info->collection != collection->id || info->dim != collection->schema.dim ||
        info->M != collection->schema.M || info->scalar != collection->schema.scalar ||
        info->metric != collection->schema.metric ||
        info->vector_stride != collection->vector_bytes || indexed > rows || rows > GRAPH_MAX_ROWS)
        return error_set(OMENDB_CORRUPT,
                         "seg-%llu: part %u does not fit collection \"%s\"; restore from a backup",
                         (unsigned long long)file->number, part, collection->name);
    const struct {
        enum section_type type;
        uint64_t bytes;
    } expected[] = {
        {SECTION_VECTORS, rows * info->vector_stride},
        {SECTION_LINKS, indexed * 2 * info->M * sizeof(uint32_t)},
        {SECTION_LEVELS, indexed},
        {SECTION_UPPER_INDEX, indexed * sizeof(uint32_t)},
        {SECTION_UPPER_LINKS, (uint64_t)info->upper_count * info->M * sizeof(uint32_t)},
        {SECTION_IDS, rows * sizeof(uint64_t)},
        {SECTION_SORTED_IDS, (info->flags & SEGMENT_IDS_ASCEND) != 0 ? 0 : rows * sizeof(uint64_t)},
        {SECTION_SORTED_ROWS,
         (info->flags & SEGMENT_IDS_ASCEND) != 0 ? 0 : rows * sizeof(uint32_t)},
        {SECTION_ID_FILTER, idmap_filter_bytes(info->rows)},
        {SECTION_CODES, segment_has_codes(info) ? rows * codes_stride(info->dim) : 0},
    };
    int code = OMENDB_OK;
    for (size_t i = 0; i < sizeof expected / sizeof expected[0] && code == OMENDB_OK; i++)
        code = segment_expect(file, part, expected[i].type, expected[i].bytes);
    uint64_t curve = segment_section(file, part, SECTION_CALIBRATION).length;
    if (code == OMENDB_OK && curve != 0 && !calibration_length_is_legal(curve))
        code = segment_expect(file, part, SECTION_CALIBRATION,
                              FORMAT_CALIBRATION_BYTES + FORMAT_CURVE_BYTES);
    return code;
}

static struct rows_view segment_rows(struct segment *segment, size_t index, enum section_type type,
                                     size_t stride, uint64_t *offset)
{
    struct segment_file *file = segment->file->file;
    struct section_range range = segment_section(file, segment->part, type);
    /* The views are shared with growing stores, hence not const; nothing writes through a sealed
     * one. */
    segment->chunks[index] = (uint8_t *)(uintptr_t)(file->blocks.base + range.offset);
    *offset = range.offset;
    return (struct rows_view){&segment->chunks[index], 31, UINT32_MAX >> 1, stride};
}

/* The walk's view: codes in place of vectors, where there are some. */
static void segment_set_code_view(struct segment *segment, const struct collection *collection)
{
    const struct part_info *info = &segment->info;
    struct graph_view *view = &segment->graph;
    *view = segment->full;
    view->count = info->indexed_rows;
    segment->codes = (struct code_format){collection->format, 0.0f, 0.0f};
    if (!segment_has_codes(info))
        return;
    segment->codes.low = info->code_low;
    segment->codes.step = info->code_step;
    view->vectors =
        segment_rows(segment, 5, SECTION_CODES, codes_stride(info->dim), &view->vectors_offset);
    view->kernel = codes_kernel(&segment->codes);
}

static void segment_set_views(struct segment *segment, const struct collection *collection)
{
    struct graph_view *view = &segment->full;
    const struct part_info *info = &segment->info;
    view->vectors =
        segment_rows(segment, 0, SECTION_VECTORS, info->vector_stride, &view->vectors_offset);
    view->links = segment_rows(segment, 1, SECTION_LINKS, (size_t)info->M * 2 * sizeof(uint32_t),
                               &view->links_offset);
    view->levels = segment_rows(segment, 2, SECTION_LEVELS, 1, &view->levels_offset);
    view->upper_index =
        segment_rows(segment, 3, SECTION_UPPER_INDEX, sizeof(uint32_t), &view->upper_index_offset);
    view->upper_links = segment_rows(segment, 4, SECTION_UPPER_LINKS, info->M * sizeof(uint32_t),
                                     &view->upper_links_offset);
    view->count = info->rows;
    view->upper_count = info->upper_count;
    view->M = info->M;
    view->links_per_row = info->M * 2;
    view->entry_row = info->indexed_rows == 0 || info->entry_row >= info->indexed_rows
                          ? GRAPH_NO_ROW
                          : info->entry_row;
    view->entry_level = info->entry_level > GRAPH_MAX_LEVEL ? 0 : info->entry_level;
    view->dim = info->dim;
    view->kernel = collection->kernel;
    view->file = &segment->file->file->blocks;
    segment_set_code_view(segment, collection);
}

/* The segment's curve, where it has one. It decides about effort only, so one that is damaged, or
 * for which there is no memory, does not keep the segment from being used; omendb_check tells. */
static void segment_read_calibration(struct segment *segment)
{
    struct segment_file *file = segment->file->file;
    struct section_range range = segment_section(file, segment->part, SECTION_CALIBRATION);
    if (range.length == 0 || blocks_touch(&file->blocks, range.offset, range.length) != OMENDB_OK)
        return;
    struct calibration *curve = memory_alloc(segment->memory, sizeof *curve);
    if (curve != NULL && calibration_decode(curve, file->blocks.base + range.offset, range.length))
        segment->calibration = curve;
    else if (curve != NULL)
        memory_free(segment->memory, curve, sizeof *curve);
}

OMENDB_INTERNAL int segment_open(omendb *db, const struct collection *collection,
                                 struct shared_file *file, uint32_t part,
                                 struct tombstones *tombstones, struct begin_array *begins,
                                 struct segment **segment)
{
    *segment = NULL;
    if (part >= file->file->part_count)
        return error_set(OMENDB_CORRUPT,
                         "seg-%llu has %u parts; the manifest names part %u; restore from a backup",
                         (unsigned long long)file->file->number, file->file->part_count, part);
    int code = segment_check_layout(collection, file->file, part);
    if (code != OMENDB_OK)
        return code;
    struct segment *made = memory_zalloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    struct tombstones *own = tombstones != NULL ? tombstones : tombstones_create(&db->memory);
    if (own == NULL) {
        memory_free(&db->memory, made, sizeof *made);
        return OMENDB_NOMEM;
    }
    atomic_init(&made->references, 1);
    made->memory = &db->memory;
    made->file = shared_file_reference(file);
    made->part = part;
    made->info = file->file->parts[part];
    made->tombstones = own;
    made->begins = begins;
    made->ids = segment_section(file->file, part, SECTION_IDS);
    made->sorted_ids = segment_section(file->file, part, SECTION_SORTED_IDS);
    made->sorted_rows = segment_section(file->file, part, SECTION_SORTED_ROWS);
    made->filter = segment_section(file->file, part, SECTION_ID_FILTER);
    segment_set_views(made, collection);
    segment_read_calibration(made);
    *segment = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL struct segment *segment_reference(struct segment *segment)
{
    atomic_fetch_add_explicit(&segment->references, 1, memory_order_relaxed);
    return segment;
}

OMENDB_INTERNAL void begin_array_destroy(struct begin_array *begins)
{
    if (begins != NULL)
        memory_free(begins->memory, begins, sizeof *begins + begins->rows * sizeof(uint64_t));
}

OMENDB_INTERNAL void segment_release(struct segment *segment)
{
    if (segment == NULL ||
        atomic_fetch_sub_explicit(&segment->references, 1, memory_order_acq_rel) != 1)
        return;
    tombstones_release(segment->tombstones);
    begin_array_destroy(segment->begins);
    hot_destroy(segment->memory, atomic_load_explicit(&segment->hot, memory_order_relaxed));
    memory_free(segment->memory, segment->calibration, sizeof *segment->calibration);
    shared_file_release(segment->file);
    memory_free(segment->memory, segment, sizeof *segment);
}

/* Verifies and copies a number out of a section. */
static int segment_number(const struct segment *segment, struct section_range range, uint64_t index,
                          size_t bytes, void *out)
{
    struct block_file *file = &segment->file->file->blocks;
    uint64_t offset = range.offset + index * bytes;
    int code = blocks_touch(file, offset, bytes);
    if (code == OMENDB_OK)
        memcpy(out, file->base + offset, bytes);
    return code;
}

OMENDB_INTERNAL int segment_id(const struct segment *segment, uint32_t row, uint64_t *id)
{
    return segment_number(segment, segment->ids, row, sizeof *id, id);
}

OMENDB_INTERNAL int segment_vector(const struct segment *segment, uint32_t row,
                                   const uint8_t **vector)
{
    const struct graph_view *view = &segment->full;
    int code = blocks_touch(view->file, view->vectors_offset + (uint64_t)row * view->vectors.stride,
                            view->vectors.stride);
    *vector = rows_at(&view->vectors, row);
    return code;
}

OMENDB_INTERNAL int segment_row_visible(const struct segment *segment, uint32_t row,
                                        uint64_t commit)
{
    uint64_t end = tombstones_get(segment->tombstones, row);
    if (end != 0 && end <= commit)
        return 0;
    return segment->begins == NULL || segment->begins->begin[row] <= commit;
}

/* First position of the ascending ids that is not below `id`. */
static int segment_lower_bound(const struct segment *segment, struct section_range range,
                               uint64_t id, uint64_t *position)
{
    uint64_t low = 0, high = segment->info.rows;
    while (low < high) {
        uint64_t value, middle = low + (high - low) / 2;
        int code = segment_number(segment, range, middle, sizeof value, &value);
        if (code != OMENDB_OK)
            return code;
        if (value < id)
            low = middle + 1;
        else
            high = middle;
    }
    *position = low;
    return OMENDB_OK;
}

static int segment_may_have(const struct segment *segment, uint64_t id, int *may)
{
    *may = 0;
    if (id < segment->info.smallest_id || id > segment->info.largest_id)
        return OMENDB_OK;
    struct block_file *file = &segment->file->file->blocks;
    uint64_t offset =
        segment->filter.offset + idmap_filter_offset((size_t)segment->filter.length, id);
    int code = blocks_touch(file, offset, IDMAP_FILTER_BLOCK);
    if (code == OMENDB_OK)
        *may = idmap_filter_has(file->base + offset, id);
    return code;
}

OMENDB_INTERNAL int segment_find(const struct segment *segment, uint64_t id, uint64_t *cursor,
                                 uint32_t *row)
{
    int ascend = (segment->info.flags & SEGMENT_IDS_ASCEND) != 0;
    struct section_range range = ascend ? segment->ids : segment->sorted_ids;
    uint64_t position = *cursor, value;
    int code, may;
    *row = GRAPH_NO_ROW;
    if (position == 0) {
        code = segment_may_have(segment, id, &may);
        if (code != OMENDB_OK || !may)
            return code;
        code = segment_lower_bound(segment, range, id, &position);
        if (code != OMENDB_OK)
            return code;
    }
    *cursor = position + 1;
    if (position >= segment->info.rows)
        return OMENDB_OK;
    code = segment_number(segment, range, position, sizeof value, &value);
    if (code != OMENDB_OK || value != id)
        return code;
    uint32_t found = (uint32_t)position;
    if (!ascend)
        code = segment_number(segment, segment->sorted_rows, position, sizeof found, &found);
    if (code == OMENDB_OK && found >= segment->info.rows)
        return error_set(
            OMENDB_CORRUPT,
            "seg-%llu: part %u: id %llu is said to be row %u of %u; restore from a backup",
            (unsigned long long)segment->file->file->number, segment->part, (unsigned long long)id,
            found, segment->info.rows);
    *row = found;
    return code;
}

/* ------------------------------------------------------------------ rows by id */

static int version_locate_live_in_segments(const struct version *version, uint64_t id,
                                           struct location *location, uint64_t *newest_change)
{
    for (uint32_t i = version->segment_count; i-- > 0;) {
        struct segment *segment = version->segments[i];
        uint64_t cursor = 0;
        uint32_t row;
        for (;;) {
            int code = segment_find(segment, id, &cursor, &row);
            if (code != OMENDB_OK)
                return code;
            if (row == GRAPH_NO_ROW)
                break;
            uint64_t end = tombstones_get(segment->tombstones, row);
            uint64_t begin = segment->begins == NULL ? 0 : segment->begins->begin[row];
            *newest_change = end > *newest_change ? end : *newest_change;
            *newest_change = begin > *newest_change ? begin : *newest_change;
            if (end == 0)
                *location = (struct location){NULL, segment, row};
        }
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int version_locate_live(const struct version *version, uint64_t id,
                                        struct location *location, uint64_t *newest_change)
{
    memset(location, 0, sizeof *location);
    *newest_change = 0;
    for (uint32_t i = version->memtable_count; i-- > 0;) {
        struct memtable *memtable = version->memtables[i];
        uint32_t row = memtable_find(memtable, id);
        if (row == GRAPH_NO_ROW)
            continue;
        /* The newest row of an id decides: whatever is older ended before it began. */
        uint64_t end = tombstones_get(memtable->tombstones, row);
        *newest_change = end != 0 ? end : memtable_begin(memtable, row);
        if (end == 0)
            *location = (struct location){memtable, NULL, row};
        return OMENDB_OK;
    }
    return version_locate_live_in_segments(version, id, location, newest_change);
}

static int version_locate_in_memtable(struct memtable *memtable, uint64_t id, uint64_t commit,
                                      struct location *location)
{
    for (uint32_t row = memtable_find(memtable, id); row != GRAPH_NO_ROW;
         row = memtable_previous(memtable, row)) {
        uint64_t end = tombstones_get(memtable->tombstones, row);
        if (memtable_begin(memtable, row) > commit)
            continue;
        if (end == 0 || end > commit)
            *location = (struct location){memtable, NULL, row};
        return 1;
    }
    return 0;
}

OMENDB_INTERNAL int version_locate(const struct version *version, uint64_t id, uint64_t commit,
                                   struct location *location)
{
    memset(location, 0, sizeof *location);
    for (uint32_t i = version->memtable_count; i-- > 0;) {
        if (version_locate_in_memtable(version->memtables[i], id, commit, location))
            return OMENDB_OK;
    }
    for (uint32_t i = version->segment_count; i-- > 0;) {
        uint64_t cursor = 0;
        uint32_t row;
        do {
            int code = segment_find(version->segments[i], id, &cursor, &row);
            if (code != OMENDB_OK)
                return code;
            if (row != GRAPH_NO_ROW && segment_row_visible(version->segments[i], row, commit)) {
                *location = (struct location){NULL, version->segments[i], row};
                return OMENDB_OK;
            }
        } while (row != GRAPH_NO_ROW);
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL int location_vector(const struct location *location, const uint8_t **vector)
{
    if (location->segment != NULL)
        return segment_vector(location->segment, location->row, vector);
    *vector = memtable_vector(location->memtable, location->row);
    return OMENDB_OK;
}

struct version_dead {
    uint64_t commit;
    uint64_t dead;
    const struct begin_array
        *begins; /* rows that are not counted as begun must not be counted as dead, too */
};

static int version_count_dead(void *context, uint32_t row, uint64_t end)
{
    struct version_dead *dead = context;
    if (end <= dead->commit && (dead->begins == NULL || dead->begins->begin[row] <= dead->commit))
        dead->dead++;
    return 0;
}

OMENDB_INTERNAL int version_count(const struct version *version, uint64_t commit, uint64_t *count)
{
    *count = 0;
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        struct memtable *memtable = version->memtables[i];
        uint32_t rows = memtable_visible_rows(memtable, commit);
        struct version_dead dead = {commit, 0, NULL};
        tombstones_each(memtable->tombstones, rows, version_count_dead, &dead);
        *count += rows - dead.dead;
    }
    for (uint32_t i = 0; i < version->segment_count; i++) {
        const struct segment *segment = version->segments[i];
        struct version_dead dead = {commit, 0, segment->begins};
        uint64_t rows = segment->info.rows;
        for (uint32_t row = 0; segment->begins != NULL && segment->begins->newest > commit &&
                               row < segment->info.rows;
             row++)
            rows -= segment->begins->begin[row] > commit;
        tombstones_each(segment->tombstones, segment->info.rows, version_count_dead, &dead);
        *count += rows - dead.dead;
    }
    return OMENDB_OK;
}

OMENDB_INTERNAL uint64_t version_growing_tail_bytes(const struct version *version,
                                                    size_t vector_bytes)
{
    if (version->memtable_count == 0)
        return 0;
    const struct memtable *memtable = version->memtables[version->memtable_count - 1];
    uint32_t indexed = atomic_load_explicit(&memtable->indexed, memory_order_acquire);
    uint32_t count = atomic_load_explicit(&memtable->count, memory_order_relaxed);
    return (uint64_t)(count - indexed) * vector_bytes;
}

OMENDB_INTERNAL uint64_t version_unindexed_bytes(const struct version *version, size_t vector_bytes)
{
    uint64_t rows = 0;
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        /* Acquire: the count that is read next is not behind it. */
        uint32_t indexed =
            atomic_load_explicit(&version->memtables[i]->indexed, memory_order_acquire);
        rows += atomic_load_explicit(&version->memtables[i]->count, memory_order_relaxed) - indexed;
    }
    for (uint32_t i = 0; i < version->segment_count; i++)
        rows += version->segments[i]->info.rows - version->segments[i]->info.indexed_rows;
    return rows * vector_bytes;
}

/* ------------------------------------------------------------------ scratch */

OMENDB_INTERNAL void scratch_destroy(struct scratch *scratch)
{
    if (scratch == NULL)
        return;
    graph_scratch_destroy(scratch->graph);
    memory_free(scratch->memory, scratch->hits, scratch->hit_capacity * sizeof *scratch->hits);
    memory_free(scratch->memory, scratch->found, scratch->found_capacity * sizeof *scratch->found);
    memory_free(scratch->memory, scratch->best, scratch->found_capacity * sizeof *scratch->best);
    memory_free(scratch->memory, scratch->merged,
                scratch->found_capacity * sizeof *scratch->merged);
    memory_free(scratch->memory, scratch->vector, scratch->vector_capacity);
    memory_free(scratch->memory, scratch->code, scratch->code_capacity);
    memory_free(scratch->memory, scratch, sizeof *scratch);
}

static struct scratch *scratch_create(struct memory *memory)
{
    struct scratch *scratch = memory_zalloc(memory, sizeof *scratch);
    if (scratch == NULL)
        return NULL;
    scratch->memory = memory;
    scratch->graph = graph_scratch_create(memory);
    if (scratch->graph == NULL) {
        scratch_destroy(scratch);
        return NULL;
    }
    return scratch;
}

OMENDB_INTERNAL struct scratch *scratch_take(omendb *db)
{
    for (size_t i = 0; i < DATABASE_SCRATCH_SLOTS; i++) {
        if (atomic_load_explicit(&db->scratch[i], memory_order_relaxed) == NULL)
            continue;
        struct scratch *scratch = atomic_exchange(&db->scratch[i], NULL);
        if (scratch != NULL)
            return scratch;
    }
    return scratch_create(&db->memory);
}

OMENDB_INTERNAL void scratch_give(omendb *db, struct scratch *scratch)
{
    if (scratch == NULL)
        return;
    for (size_t i = 0; i < DATABASE_SCRATCH_SLOTS; i++) {
        struct scratch *empty = NULL;
        if (atomic_compare_exchange_strong(&db->scratch[i], &empty, scratch))
            return;
    }
    scratch_destroy(scratch);
}

/* A larger block; the content is not kept. */
static void *scratch_replace(struct memory *memory, void *block, size_t old_bytes, size_t bytes)
{
    memory_free(memory, block, old_bytes);
    return bytes == 0 ? NULL : memory_alloc(memory, bytes);
}

static int scratch_reserve_found(struct scratch *scratch, size_t found)
{
    size_t old_bytes = scratch->found_capacity * sizeof *scratch->found,
           bytes = memory_multiply(found, sizeof *scratch->found);
    scratch->found = scratch_replace(scratch->memory, scratch->found, old_bytes, bytes);
    scratch->best = scratch_replace(scratch->memory, scratch->best, old_bytes, bytes);
    scratch->merged = scratch_replace(scratch->memory, scratch->merged, old_bytes, bytes);
    scratch->found_capacity = found;
    if (scratch->found != NULL && scratch->best != NULL && scratch->merged != NULL)
        return OMENDB_OK;
    memory_free(scratch->memory, scratch->found, bytes);
    memory_free(scratch->memory, scratch->best, bytes);
    memory_free(scratch->memory, scratch->merged, bytes);
    scratch->found = scratch->best = scratch->merged = NULL;
    scratch->found_capacity = 0;
    return OMENDB_NOMEM;
}

OMENDB_INTERNAL int scratch_reserve_code(struct scratch *scratch, size_t bytes)
{
    if (bytes <= scratch->code_capacity)
        return OMENDB_OK;
    scratch->code = scratch_replace(scratch->memory, scratch->code, scratch->code_capacity, bytes);
    scratch->code_capacity = scratch->code == NULL ? 0 : bytes;
    return scratch->code == NULL ? OMENDB_NOMEM : OMENDB_OK;
}

OMENDB_INTERNAL int scratch_reserve(struct scratch *scratch, size_t hits, size_t found,
                                    size_t vector_bytes)
{
    if (hits > scratch->hit_capacity) {
        size_t bytes = memory_multiply(hits, sizeof *scratch->hits);
        scratch->hits = scratch_replace(scratch->memory, scratch->hits,
                                        scratch->hit_capacity * sizeof *scratch->hits, bytes);
        scratch->hit_capacity = scratch->hits == NULL ? 0 : hits;
        if (scratch->hits == NULL)
            return OMENDB_NOMEM;
    }
    if (vector_bytes > scratch->vector_capacity) {
        scratch->vector = scratch_replace(scratch->memory, scratch->vector,
                                          scratch->vector_capacity, vector_bytes);
        scratch->vector_capacity = scratch->vector == NULL ? 0 : vector_bytes;
        if (scratch->vector == NULL)
            return OMENDB_NOMEM;
    }
    return found > scratch->found_capacity ? scratch_reserve_found(scratch, found) : OMENDB_OK;
}

OMENDB_INTERNAL void database_log(omendb *db, int code, const char *message)
{
    if (db->log != NULL)
        db->log(db->log_context, code, message);
}

/* ==============================================================================================
 * hot.c
 * ============================================================================================== */

/* hot.c: what a walk reads of a segment (codes or vectors, and the graph), copied into memory of
 * huge pages.
 *
 * Reading random rows through a mapping of 4 KiB pages misses the TLB at each; the copy makes a
 * search 1.3 to 2 times faster, and the mapped pages are let go, so that nothing is resident twice.
 * Segments that were walked often enough get a copy in the background, while there is memory: at
 * most half of memory_limit is in use afterwards. The copy is published by one store and lives as
 * long as its segment.
 *
 * Not copied: what already lies in anonymous memory (OMENDB_IO_PREAD, ":memory:"), full vectors of
 * floats (they are read for reranking only, unless there are no codes), small segments, whose pages
 * the TLB holds. */

#define HOT_MIN_BYTES (UINT64_C(4) << 20)
#define HOT_SECTIONS  5
#define HOT_GRACE_US  20000

struct segment_hot {
    size_t bytes;
    uint8_t *block;
    uint8_t *chunks[HOT_SECTIONS];
    struct graph_view view;
};

/* A section of the view: where it is in the file, and which field of the copy finds it. */
struct hot_section {
    struct rows_view *rows;
    uint64_t offset;
    uint64_t length;
};

static void hot_list_sections(const struct segment *segment, struct graph_view *view,
                              struct hot_section *sections)
{
    uint64_t rows = segment->info.indexed_rows;
    const struct hot_section all[HOT_SECTIONS] = {
        {&view->vectors, view->vectors_offset, rows * view->vectors.stride},
        {&view->links, view->links_offset, rows * view->links.stride},
        {&view->levels, view->levels_offset, rows * view->levels.stride},
        {&view->upper_index, view->upper_index_offset, rows * view->upper_index.stride},
        {&view->upper_links, view->upper_links_offset,
         (uint64_t)view->upper_count * view->upper_links.stride}};
    memcpy(sections, all, sizeof all);
}

static size_t hot_align(uint64_t bytes)
{
    return (size_t)((bytes + OMENDB_CACHE_LINE - 1) / OMENDB_CACHE_LINE * OMENDB_CACHE_LINE);
}

static size_t hot_bytes(const struct hot_section *sections)
{
    size_t bytes = 0;
    for (size_t i = 0; i < HOT_SECTIONS; i++)
        bytes = memory_add(bytes, hot_align(sections[i].length));
    return bytes;
}

OMENDB_INTERNAL int hot_is_wanted(const omendb *db, const struct segment *segment)
{
    const struct memory *memory = &db->memory;
    struct hot_section sections[HOT_SECTIONS];
    struct graph_view view = segment->graph;
    if (db->in_memory || db->storage.io != OMENDB_IO_MAP || atomic_load(&segment->hot) != NULL ||
        (segment->codes.step == 0.0f && codes_apply_to(&segment->codes.vectors)))
        return 0;
    hot_list_sections(segment, &view, sections);
    size_t bytes = hot_bytes(sections);
    return bytes >= HOT_MIN_BYTES &&
           (memory->limit == 0 ||
            memory_add(bytes, (size_t)atomic_load(&memory->used)) <= memory->limit / 2);
}

static int hot_copy(const struct segment *segment, struct segment_hot *hot)
{
    struct block_file *file = segment->graph.file;
    struct hot_section sections[HOT_SECTIONS];
    uint8_t *at = hot->block;
    int code = OMENDB_OK;
    hot->view = segment->graph;
    hot_list_sections(segment, &hot->view, sections);
    for (size_t i = 0; i < HOT_SECTIONS && code == OMENDB_OK; i++) {
        hot->chunks[i] = at;
        sections[i].rows->chunks = &hot->chunks[i];
        if (sections[i].length == 0)
            continue;
        code = blocks_touch(file, sections[i].offset, sections[i].length);
        if (code == OMENDB_OK) {
            memcpy(at, file->base + sections[i].offset, sections[i].length);
            at += hot_align(sections[i].length);
        }
    }
    hot->view.file = NULL; /* everything was verified */
    return code;
}

OMENDB_INTERNAL void hot_destroy(struct memory *memory, struct segment_hot *hot)
{
    if (hot == NULL)
        return;
    memory_free_aligned(memory, hot->block, hot->bytes);
    memory_free(memory, hot, sizeof *hot);
}

/* Lets the mapped pages go. A search that began before the copy was there would bring many of them
 * back, so those get some time to end. */
static void hot_release_mapped(struct segment *segment)
{
    struct hot_section sections[HOT_SECTIONS];
    struct graph_view view = segment->graph;
    hot_list_sections(segment, &view, sections);
    platform_sleep_us(HOT_GRACE_US);
    for (size_t i = 0; i < HOT_SECTIONS; i++) {
        if (sections[i].length != 0)
            blocks_release(view.file, sections[i].offset, sections[i].length);
    }
}

OMENDB_INTERNAL int hot_make(omendb *db, struct segment *segment)
{
    struct hot_section sections[HOT_SECTIONS];
    struct graph_view view = segment->graph;
    struct segment_hot *none = NULL, *hot = memory_zalloc(&db->memory, sizeof *hot);
    if (hot == NULL)
        return OMENDB_NOMEM;
    hot_list_sections(segment, &view, sections);
    hot->bytes = hot_bytes(sections);
    hot->block = memory_alloc_aligned(&db->memory, hot->bytes);
    int code = hot->block == NULL ? OMENDB_NOMEM : hot_copy(segment, hot);
    if (code != OMENDB_OK || !atomic_compare_exchange_strong(&segment->hot, &none, hot)) {
        hot_destroy(&db->memory, hot);
        return code;
    }
    hot_release_mapped(segment);
    return OMENDB_OK;
}

OMENDB_INTERNAL const struct graph_view *hot_view(const struct segment *segment)
{
    const struct segment_hot *hot = atomic_load_explicit(&segment->hot, memory_order_acquire);
    return hot == NULL ? &segment->graph : &hot->view;
}

OMENDB_INTERNAL uint64_t hot_size(const struct segment *segment)
{
    const struct segment_hot *hot = atomic_load_explicit(&segment->hot, memory_order_acquire);
    return hot == NULL ? 0 : hot->bytes;
}

#undef HOT_MIN_BYTES
#undef HOT_SECTIONS
#undef HOT_GRACE_US

/* ==============================================================================================
 * txn.c
 * ============================================================================================== */

/* txn.c: transactions. A read-only one is a commit number in a list, which keeps merges from
 * dropping what it may see. A writing one gathers its changes in memory, by record, and hands them
 * to commit_changes at the end; reads look there first.
 *
 * The list is in the order of beginning, so its head has the smallest snapshot: numbers are taken
 * under the same mutex. */

OMENDB_INTERNAL int txn_begin(omendb *db, int mode, omendb_txn **txn)
{
    *txn = NULL;
    if (mode == OMENDB_READ_WRITE) {
        int code = commit_check_writable(db);
        if (code != OMENDB_OK)
            return code;
    }
    omendb_txn *made = memory_zalloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->magic = TXN_MAGIC;
    made->db = db;
    made->mode = mode;
    platform_mutex_lock(&db->txn_mutex);
    made->snapshot = atomic_load(&db->visible_commit);
    if (db->transactions == NULL) {
        made->next = made->previous = made;
        db->transactions = made;
    } else {
        made->previous = db->transactions->previous;
        made->next = db->transactions;
        made->previous->next = made;
        made->next->previous = made;
    }
    db->open_transactions++;
    platform_mutex_unlock(&db->txn_mutex);
    atomic_fetch_add(&db->children, 1);
    *txn = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL uint64_t txn_oldest(omendb *db)
{
    platform_mutex_lock(&db->txn_mutex);
    uint64_t oldest =
        db->transactions != NULL ? db->transactions->snapshot : atomic_load(&db->visible_commit);
    platform_mutex_unlock(&db->txn_mutex);
    return oldest;
}

OMENDB_INTERNAL void txn_end(omendb_txn *txn)
{
    if (txn == NULL)
        return;
    omendb *db = txn->db;
    platform_mutex_lock(&db->txn_mutex);
    if (txn->next == txn) {
        db->transactions = NULL;
    } else {
        txn->next->previous = txn->previous;
        txn->previous->next = txn->next;
        if (db->transactions == txn)
            db->transactions = txn->next;
    }
    db->open_transactions--;
    platform_mutex_unlock(&db->txn_mutex);
    for (struct txn_cursor *cursor = txn->cursors; cursor != NULL; cursor = cursor->next)
        cursor->ended = 1;
    for (size_t i = 0; i < txn->write_count; i++) {
        memory_free(&db->memory, txn->writes[i].vector,
                    txn->writes[i].vector == NULL ? 0 : txn->writes[i].collection->vector_bytes);
        collection_release(txn->writes[i].collection);
    }
    memory_free(&db->memory, txn->writes, txn->write_capacity * sizeof *txn->writes);
    memory_free(&db->memory, txn->table, txn->table_slots * sizeof *txn->table);
    txn->magic = 0;
    memory_free(&db->memory, txn, sizeof *txn);
}

/* ------------------------------------------------------------------ the table of changes */

/* Slot of the record, or the empty one where it belongs. */
static size_t txn_slot(const omendb_txn *txn, const struct collection *collection, uint64_t id)
{
    size_t at = (size_t)idmap_mix(id ^ idmap_mix(collection->id)) & (txn->table_slots - 1);
    while (txn->table[at] != 0) {
        const struct txn_write *write = &txn->writes[txn->table[at] - 1];
        if (write->collection == collection && write->id == id)
            break;
        at = (at + 1) & (txn->table_slots - 1);
    }
    return at;
}

OMENDB_INTERNAL void txn_add_cursor(omendb_txn *txn, struct txn_cursor *cursor)
{
    cursor->next = txn->cursors;
    txn->cursors = cursor;
}

OMENDB_INTERNAL void txn_remove_cursor(omendb_txn *txn, struct txn_cursor *cursor)
{
    struct txn_cursor **link = &txn->cursors;
    while (*link != cursor)
        link = &(*link)->next;
    *link = cursor->next;
}

OMENDB_INTERNAL const struct txn_write *txn_find(const omendb_txn *txn,
                                                 const struct collection *collection, uint64_t id)
{
    if (txn == NULL || txn->write_count == 0)
        return NULL;
    uint32_t index = txn->table[txn_slot(txn, collection, id)];
    return index == 0 ? NULL : &txn->writes[index - 1];
}

static int txn_reserve(omendb_txn *txn, size_t more)
{
    struct memory *memory = &txn->db->memory;
    size_t needed = txn->write_count + more;
    if (needed > UINT32_MAX / 4)
        return error_set(OMENDB_TOOBIG, "a transaction of %zu changes; at most %u", needed,
                         UINT32_MAX / 4);
    if (needed > txn->write_capacity) {
        size_t capacity = needed + txn->write_capacity;
        struct txn_write *writes =
            memory_resize(memory, txn->writes, txn->write_capacity * sizeof *writes,
                          memory_multiply(capacity, sizeof *writes));
        if (writes == NULL)
            return OMENDB_NOMEM;
        txn->writes = writes;
        txn->write_capacity = capacity;
    }
    size_t slots = txn->table_slots == 0 ? 64 : txn->table_slots;
    while (slots < needed * 2)
        slots *= 2;
    if (slots == txn->table_slots)
        return OMENDB_OK;
    uint32_t *table = memory_zalloc(memory, slots * sizeof *table);
    if (table == NULL)
        return OMENDB_NOMEM;
    memory_free(memory, txn->table, txn->table_slots * sizeof *table);
    txn->table = table;
    txn->table_slots = slots;
    for (size_t i = 0; i < txn->write_count; i++)
        table[txn_slot(txn, txn->writes[i].collection, txn->writes[i].id)] = (uint32_t)i + 1;
    return OMENDB_OK;
}

/* Whether the transaction sees the record now, and whether it was there at the snapshot. */
static int txn_sees(omendb_txn *txn, const struct version *version, struct collection *collection,
                    uint64_t id, int *now, int *then)
{
    struct location location;
    const struct txn_write *own = txn_find(txn, collection, id);
    int code = version_locate(version, id, txn->snapshot, &location);
    *then = location.memtable != NULL || location.segment != NULL;
    *now = own == NULL ? *then : own->vector != NULL;
    return code;
}

/* Copies all vectors first, so that a failure leaves the transaction as it was. */
static int txn_copy_vectors(omendb_txn *txn, const struct change *change, uint8_t **copies)
{
    size_t bytes = change->collection->vector_bytes;
    for (uint32_t i = 0; i < change->count; i++) {
        copies[i] = memory_alloc(&txn->db->memory, bytes);
        if (copies[i] == NULL) {
            while (i-- > 0)
                memory_free(&txn->db->memory, copies[i], bytes);
            return OMENDB_NOMEM;
        }
        memcpy(copies[i], change->vectors + i * bytes, bytes);
    }
    return OMENDB_OK;
}

static void txn_set(omendb_txn *txn, struct collection *collection, uint64_t id, uint8_t *vector,
                    int existed)
{
    size_t slot = txn_slot(txn, collection, id);
    if (txn->table[slot] == 0) {
        txn->writes[txn->write_count] =
            (struct txn_write){collection_reference(collection), id, NULL, !existed};
        txn->table[slot] = (uint32_t)++txn->write_count;
    }
    struct txn_write *write = &txn->writes[txn->table[slot] - 1];
    memory_free(&txn->db->memory, write->vector,
                write->vector == NULL ? 0 : collection->vector_bytes);
    write->vector = vector;
}

/* Checks every id as the transaction sees it; leaves absent ones out of a delete. */
static int txn_check(omendb_txn *txn, const struct version *version, struct change *change,
                     uint8_t *existed)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < change->count; i++) {
        int now, then,
            code = txn_sees(txn, version, change->collection, change->ids[i], &now, &then);
        if (code != OMENDB_OK)
            return code;
        if (change->kind == CHANGE_ADD && now)
            return commit_refuse_taken_id(change, i);
        if (change->kind == CHANGE_DELETE && !now) {
            if (!change->skip_missing)
                return error_set(OMENDB_NOTFOUND, "id %llu is not in collection \"%s\"",
                                 (unsigned long long)change->ids[i], change->collection->name);
            continue;
        }
        change->ids[kept] = change->ids[i];
        existed[kept++] = (uint8_t)then;
    }
    change->count = change->affected = kept;
    return OMENDB_OK;
}

static int txn_assign_ids(omendb_txn *txn, struct change *change)
{
    struct collection *collection = change->collection;
    if (!change->automatic)
        return OMENDB_OK;
    platform_mutex_lock(&txn->db->commit_mutex);
    uint64_t next = atomic_load(&collection->next_id);
    int code = next > UINT64_MAX - 1 - change->count ? commit_refuse_automatic_ids(collection, next)
                                                     : OMENDB_OK;
    for (uint32_t i = 0; i < change->count && code == OMENDB_OK; i++)
        change->ids[i] = next + i;
    if (code == OMENDB_OK)
        atomic_store(&collection->next_id, next + change->count);
    platform_mutex_unlock(&txn->db->commit_mutex);
    return code;
}

OMENDB_INTERNAL int txn_apply(omendb_txn *txn, struct change *change)
{
    struct memory *memory = &txn->db->memory;
    size_t count = change->count;
    uint8_t **copies = memory_zalloc(memory, memory_multiply(count, sizeof *copies));
    uint8_t *existed = memory_zalloc(memory, count);
    struct version *version = version_acquire(change->collection);
    int code = copies == NULL || existed == NULL ? OMENDB_NOMEM : OMENDB_OK;
    if (code == OMENDB_OK)
        code = txn_assign_ids(txn, change);
    if (code == OMENDB_OK)
        code = txn_check(txn, version, change, existed);
    if (code == OMENDB_OK)
        code = txn_reserve(txn, change->count);
    if (code == OMENDB_OK && change->kind != CHANGE_DELETE)
        code = txn_copy_vectors(txn, change, copies);
    for (uint32_t i = 0; i < change->count && code == OMENDB_OK; i++)
        txn_set(txn, change->collection, change->ids[i], copies[i], existed[i]);
    version_release(version);
    memory_free(memory, copies, count * sizeof *copies);
    memory_free(memory, existed, count);
    return code;
}

/* ------------------------------------------------------------------ commit */

/* A record that was added and deleted again is no change, but may stand in the way of nobody
 * either. */
static int txn_is_change(const struct txn_write *write)
{
    return write->vector != NULL || !write->added;
}

/* Order of commit: by collection, deletes before puts, else as they were made. */
static int txn_compare(const void *left, const void *right)
{
    const struct txn_write *a = *(const struct txn_write *const *)left;
    const struct txn_write *b = *(const struct txn_write *const *)right;
    if (a->collection->id != b->collection->id)
        return a->collection->id < b->collection->id ? -1 : 1;
    if ((a->vector == NULL) != (b->vector == NULL))
        return a->vector == NULL ? -1 : 1;
    return a < b ? -1 : a > b;
}

static int txn_is_same_change(const struct txn_write *a, const struct txn_write *b)
{
    return a->collection == b->collection && (a->vector == NULL) == (b->vector == NULL);
}

/* `count` writes of one kind in one collection as one change over arrays of its own. */
static int txn_gather(struct memory *memory, const struct txn_write *const *writes, size_t count,
                      struct change *change)
{
    size_t bytes = writes[0]->collection->vector_bytes;
    int deletes = writes[0]->vector == NULL;
    uint8_t *vectors = deletes ? NULL : memory_array(memory, count, bytes);
    change->kind = deletes ? CHANGE_DELETE : CHANGE_PUT;
    change->collection = writes[0]->collection;
    change->count = (uint32_t)count;
    change->ids = memory_array(memory, count, sizeof *change->ids);
    change->vectors = vectors;
    if (change->ids == NULL || (!deletes && vectors == NULL))
        return OMENDB_NOMEM;
    for (size_t i = 0; i < count; i++) {
        change->ids[i] = writes[i]->id;
        if (!deletes)
            memcpy(vectors + i * bytes, writes[i]->vector, bytes);
    }
    return OMENDB_OK;
}

/* The real changes in order; returns how many. *groups: runs of one kind in one collection. */
static size_t txn_sort_writes(const omendb_txn *txn, const struct txn_write **sorted,
                              size_t *groups)
{
    size_t count = 0;
    for (size_t i = 0; i < txn->write_count; i++) {
        if (txn_is_change(&txn->writes[i]))
            sorted[count++] = &txn->writes[i];
    }
    sort_array(sorted, count, sizeof *sorted, txn_compare);
    *groups = count != 0;
    for (size_t i = 1; i < count; i++)
        *groups += (size_t)!txn_is_same_change(sorted[i - 1], sorted[i]);
    return count;
}

/* End of the run of one change that begins at `first`. */
static size_t txn_run_end(const struct txn_write *const *sorted, size_t first, size_t count)
{
    size_t end = first + 1;
    while (end < count && txn_is_same_change(sorted[first], sorted[end]))
        end++;
    return end;
}

static int txn_commit_sorted(omendb_txn *txn, const struct txn_write *const *sorted, size_t count,
                             size_t groups)
{
    struct memory *memory = &txn->db->memory;
    size_t bytes = memory_multiply(groups, sizeof(struct change)), gathered = 0;
    struct change *changes = memory_zalloc(memory, bytes);
    int code = changes == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (size_t first = 0, end; first < count && code == OMENDB_OK; first = end) {
        end = txn_run_end(sorted, first, count);
        code = txn_gather(memory, sorted + first, end - first, &changes[gathered++]);
    }
    if (code == OMENDB_OK)
        code = commit_changes(txn->db, changes, groups, txn->snapshot);
    for (size_t i = 0, first = 0, end; i < gathered; i++, first = end) {
        end = txn_run_end(sorted, first, count);
        memory_free(memory, changes[i].ids, (end - first) * sizeof *changes[i].ids);
        memory_free(memory, (void *)(uintptr_t)changes[i].vectors,
                    (end - first) * changes[i].collection->vector_bytes);
    }
    memory_free(memory, changes, bytes);
    return code;
}

static int txn_commit_writes(omendb_txn *txn)
{
    struct memory *memory = &txn->db->memory;
    size_t groups, bytes = memory_multiply(txn->write_count, sizeof(struct txn_write *));
    const struct txn_write **sorted = memory_alloc(memory, bytes);
    if (sorted == NULL)
        return OMENDB_NOMEM;
    size_t count = txn_sort_writes(txn, sorted, &groups);
    int code = groups == 0 ? OMENDB_OK : txn_commit_sorted(txn, sorted, count, groups);
    memory_free(memory, (void *)sorted, bytes);
    return code;
}

OMENDB_INTERNAL int txn_commit(omendb_txn *txn)
{
    return txn->write_count == 0 ? OMENDB_OK : txn_commit_writes(txn);
}

/* ==============================================================================================
 * commit.c
 * ============================================================================================== */

/* commit.c: one path for every change: validate, reserve, log, apply; then sync in groups and
 * publish.
 *
 * Under commit_mutex a commit is validated against everything that was appended, published or not,
 * all memory that applying needs is reserved, the record is appended, and the change is applied
 * with its commit number, which makes it visible to nobody yet. Outside, one waiting thread at a
 * time becomes the leader, syncs the log for all, and publishes the newest commit that the sync
 * covers. Since commits are numbered in the order of the log, publishing one number publishes all
 * before it.
 *
 * Payload of a record: for each change
 *   u32 kind, u32 count, u64 collection id, then
 *   ADD, PUT: count u64 ids, count vectors in the stored type, zeros to a multiple of 8
 *   DELETE:   count u64 ids
 *   CREATE:   u32 dim, metric, scalar; f32 scale; u32 M, ef_construction, ef, name bytes;
 *             u64 seed; name, zeros to a multiple of 8
 *   DROP:     nothing */

#define COMMIT_HEAD_BYTES   16
#define COMMIT_CREATE_BYTES 40
#define COMMIT_PIECES       4

OMENDB_INTERNAL int commit_check_writable(omendb *db)
{
    if (db->read_only)
        return error_set(OMENDB_READONLY, "the database was opened read-only");
    if (atomic_load(&db->poisoned))
        return error_set(OMENDB_POISONED,
                         "an earlier sync failed (%s); close and reopen the database",
                         db->poison_text);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ durability */

OMENDB_INTERNAL int commit_poison(omendb *db, int code)
{
    platform_mutex_lock(&db->sync_mutex);
    if (!atomic_load(&db->poisoned)) {
        const char *text = error_text();
        size_t length = strlen(text);
        length = length < sizeof db->poison_text ? length : sizeof db->poison_text - 1;
        memcpy(db->poison_text, text, length);
        db->poison_text[length] = 0;
        atomic_store(&db->poisoned, 1);
    }
    platform_condition_broadcast(&db->sync_condition);
    platform_mutex_unlock(&db->sync_mutex);
    return code;
}

OMENDB_INTERNAL void commit_publish(omendb *db, uint64_t commit)
{
    uint64_t visible = atomic_load(&db->visible_commit);
    while (visible < commit && !atomic_compare_exchange_weak(&db->visible_commit, &visible, commit))
        ;
}

OMENDB_INTERNAL void commit_lead(omendb *db)
{
    platform_mutex_lock(&db->sync_mutex);
    while (db->syncing)
        platform_condition_wait(&db->sync_condition, &db->sync_mutex);
    db->syncing = 1;
    platform_mutex_unlock(&db->sync_mutex);
}

OMENDB_INTERNAL void commit_unlead(omendb *db)
{
    platform_mutex_lock(&db->sync_mutex);
    db->syncing = 0;
    platform_condition_broadcast(&db->sync_condition);
    platform_mutex_unlock(&db->sync_mutex);
}

OMENDB_INTERNAL int commit_sync_led(omendb *db)
{
    if (atomic_load(&db->poisoned))
        return commit_check_writable(db);
    platform_mutex_lock(&db->commit_mutex);
    uint64_t commit = db->appended_commit;
    uint64_t length = db->wal == NULL ? 0 : db->wal->length;
    platform_mutex_unlock(&db->commit_mutex);
    if (db->wal != NULL && db->durable_commit < commit) {
        /* Only the leader replaces the log, so it stays while it is synced. */
        int code = wal_sync(db->wal);
        if (code != OMENDB_OK)
            return commit_poison(db, code);
        wal_set_durable(db->wal, length);
        atomic_fetch_add_explicit(&db->commit_groups, 1, memory_order_relaxed);
    }
    /* Visible first: whoever finds its commit durable returns, and must then see it. */
    commit_publish(db, commit);
    platform_mutex_lock(&db->sync_mutex);
    db->durable_commit = commit;
    platform_mutex_unlock(&db->sync_mutex);
    return OMENDB_OK;
}

OMENDB_INTERNAL int commit_wait(omendb *db, uint64_t commit)
{
    int code = OMENDB_OK;
    platform_mutex_lock(&db->sync_mutex);
    while (db->durable_commit < commit && !atomic_load(&db->poisoned)) {
        if (db->syncing) {
            platform_condition_wait(&db->sync_condition, &db->sync_mutex);
            continue;
        }
        db->syncing = 1;
        platform_mutex_unlock(&db->sync_mutex);
        code = commit_sync_led(db);
        platform_mutex_lock(&db->sync_mutex);
        db->syncing = 0;
        platform_condition_broadcast(&db->sync_condition);
    }
    int durable = db->durable_commit >= commit;
    platform_mutex_unlock(&db->sync_mutex);
    if (durable)
        return OMENDB_OK;
    return code != OMENDB_OK
               ? code
               : error_set(OMENDB_IOERR,
                           "the sync of this commit failed: %s; close and reopen the database",
                           db->poison_text);
}

/* ------------------------------------------------------------------ validating */

/* What one commit needs between validating and applying. */
struct commit_plan {
    struct location
        *victims; /* rows that end, in the order of changes and ids; both pointers NULL: none */
    size_t victim_count;
    size_t victim_capacity;
    uint64_t snapshot;
    int replay;
};

static int commit_plan_reserve(omendb *db, struct commit_plan *plan, const struct change *changes,
                               size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (changes[i].kind == CHANGE_PUT || changes[i].kind == CHANGE_DELETE ||
            (plan->replay && changes[i].kind == CHANGE_ADD))
            plan->victim_capacity += changes[i].count;
    }
    if (plan->victim_capacity == 0)
        return OMENDB_OK;
    plan->victims = memory_array(&db->memory, plan->victim_capacity, sizeof *plan->victims);
    return plan->victims == NULL ? OMENDB_NOMEM : OMENDB_OK;
}

OMENDB_INTERNAL int commit_refuse_automatic_ids(const struct collection *collection, uint64_t next)
{
    return error_set(OMENDB_FULL,
                     "collection \"%s\" has had id %llu, and automatic ids go on from the largest: "
                     "none are left; give ids yourself",
                     collection->name, (unsigned long long)(next - 1));
}

OMENDB_INTERNAL int commit_refuse_taken_id(const struct change *change, uint32_t index)
{
    char place[32] = "";
    if (change->count > 1)
        snprintf(place, sizeof place, "row %u: ", index);
    return error_set(OMENDB_EXISTS,
                     "%sid %llu is already in collection \"%s\"; use put to replace it", place,
                     (unsigned long long)change->ids[index], change->collection->name);
}

static int commit_assign_ids(struct change *change)
{
    struct collection *collection = change->collection;
    uint64_t next = atomic_load_explicit(&collection->next_id, memory_order_relaxed);
    if (next > UINT64_MAX - 1 - change->count)
        return commit_refuse_automatic_ids(collection, next);
    for (uint32_t i = 0; i < change->count; i++)
        change->ids[i] = next + i;
    return OMENDB_OK;
}

/* Finds what one id of the change does to existing rows. `keep` = 0: the id is left out of the
 * commit. */
static int commit_check_id(struct commit_plan *plan, struct change *change,
                           const struct version *version, uint32_t index, int *keep)
{
    struct collection *collection = change->collection;
    struct location live = {NULL, NULL, 0};
    uint64_t id = change->ids[index], changed = 0;
    *keep = 1;
    /* No id at or above next_id was ever used. */
    if (id < atomic_load_explicit(&collection->next_id, memory_order_relaxed)) {
        int code = version_locate_live(version, id, &live, &changed);
        if (code != OMENDB_OK)
            return code;
    }
    if (changed > plan->snapshot)
        return error_set(
            OMENDB_CONFLICT,
            "record %llu of collection \"%s\" was changed by another commit; begin again",
            (unsigned long long)id, collection->name);
    int exists = live.memtable != NULL || live.segment != NULL;
    if (change->kind == CHANGE_ADD && !plan->replay) {
        if (exists)
            return commit_refuse_taken_id(change, index);
        return OMENDB_OK;
    }
    if (change->kind == CHANGE_DELETE && !exists) {
        if (!change->skip_missing)
            return error_set(OMENDB_NOTFOUND, "id %llu is not in collection \"%s\"",
                             (unsigned long long)id, collection->name);
        *keep = 0;
        return OMENDB_OK;
    }
    plan->victims[plan->victim_count++] = live;
    return OMENDB_OK;
}

static int commit_validate_records(struct commit_plan *plan, struct change *change)
{
    int code = OMENDB_OK;
    if (change->automatic) {
        code = commit_assign_ids(change);
        if (code != OMENDB_OK)
            return code;
    }
    const struct version *version =
        atomic_load_explicit(&change->collection->version, memory_order_relaxed);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < change->count && code == OMENDB_OK; i++) {
        int keep;
        code = commit_check_id(plan, change, version, i, &keep);
        if (code == OMENDB_OK && keep)
            change->ids[kept++] = change->ids[i];
    }
    if (code == OMENDB_OK)
        change->count = kept;
    change->affected = kept;
    return code;
}

static int commit_validate(omendb *db, struct commit_plan *plan, struct change *change)
{
    int found;
    if (change->kind == CHANGE_CREATE) {
        catalog_find(&db->catalog, change->collection->name, &found);
        if (found)
            return error_set(OMENDB_EXISTS, "collection \"%s\" exists", change->collection->name);
        change->collection->id = db->next_collection;
        return catalog_reserve(db, &db->catalog, 1);
    }
    if (atomic_load(&change->collection->dropped))
        return error_set(OMENDB_DROPPED, "collection \"%s\" was dropped", change->collection->name);
    return change->kind == CHANGE_DROP ? OMENDB_OK : commit_validate_records(plan, change);
}

/* ------------------------------------------------------------------ reserving */

/* Rows whose codes a new memtable takes its range from. */
#define COMMIT_CODES_ROWS 256

/* The range of the newest segment, unless the rows have moved away from it; or one that the vectors
 * about to be added give, or those of the memtable so far. step 0: there is none yet. */
static int commit_choose_codes(const struct collection *collection, const struct change *change,
                               struct code_format *format)
{
    const struct version *version =
        atomic_load_explicit(&collection->version, memory_order_relaxed);
    uint8_t *chunk = (uint8_t *)(uintptr_t)change->vectors;
    struct rows_view vectors = {&chunk, 31, UINT32_MAX >> 1, collection->vector_bytes};
    uint32_t rows = change->count;
    int drifted = collection->active != NULL && memtable_has_drifted(collection->active);
    *format = (struct code_format){collection->format, 0.0f, 0.0f};
    if (!codes_apply_to(&collection->format))
        return OMENDB_OK;
    for (uint32_t i = version->segment_count; i-- > 0 && !drifted;) {
        if (version->segments[i]->codes.step != 0.0f) {
            *format = version->segments[i]->codes;
            return OMENDB_OK;
        }
    }
    if (rows < COMMIT_CODES_ROWS && collection->active != NULL) {
        rows = atomic_load_explicit(&collection->active->count, memory_order_relaxed);
        vectors = memtable_vectors(collection->active);
    }
    return rows < COMMIT_CODES_ROWS ? OMENDB_OK
                                    : checkpoint_choose_codes(collection, &vectors, rows, format);
}

static int commit_add_memtable(omendb *db, struct collection *collection,
                               const struct code_format *codes)
{
    struct version *old = atomic_load_explicit(&collection->version, memory_order_relaxed);
    struct version *version =
        version_create(&db->memory, old->memtable_count + 1, old->segment_count);
    struct graph_config config;
    struct memtable *memtable;
    if (version == NULL)
        return OMENDB_NOMEM;
    collection_graph_config(collection, &config);
    int code = memtable_create(&db->memory, &config, codes, &memtable);
    if (code != OMENDB_OK) {
        version_release(version);
        return code;
    }
    for (uint32_t i = 0; i < old->memtable_count; i++)
        version->memtables[i] = memtable_reference(old->memtables[i]);
    for (uint32_t i = 0; i < old->segment_count; i++)
        version->segments[i] = segment_reference(old->segments[i]);
    version->memtables[old->memtable_count] = memtable;
    collection->active = memtable;
    version_install(collection, version);
    return OMENDB_OK;
}

/* Rows go to the active memtable. One that began with too few rows to choose codes by, or whose
 * codes do not fit what came since, is left behind. */
static int commit_reserve_memtable(omendb *db, const struct change *change)
{
    struct collection *collection = change->collection;
    struct memtable *active = collection->active;
    struct code_format codes;
    const struct version *version =
        atomic_load_explicit(&collection->version, memory_order_relaxed);
    if (active != NULL &&
        (active->codes_tried || version->memtable_count >= COMMIT_MAX_MEMTABLES - 1))
        return OMENDB_OK;
    if (active != NULL && !memtable_has_drifted(active) &&
        (active->codes.step != 0.0f || !codes_apply_to(&collection->format) ||
         atomic_load_explicit(&active->count, memory_order_relaxed) < COMMIT_CODES_ROWS))
        return OMENDB_OK;
    int code = commit_choose_codes(collection, change, &codes);
    if (code == OMENDB_OK && active != NULL && codes.step == 0.0f)
        active->codes_tried = 1;
    else if (code == OMENDB_OK)
        code = commit_add_memtable(db, collection, &codes);
    return code;
}

/* All memory that applying the change will need. */
static int commit_reserve(omendb *db, struct change *change)
{
    struct collection *collection = change->collection;
    int code = OMENDB_OK;
    if ((change->kind != CHANGE_ADD && change->kind != CHANGE_PUT) || change->count == 0)
        return OMENDB_OK;
    code = commit_reserve_memtable(db, change);
    if (code == OMENDB_OK)
        code = memtable_reserve(collection->active, change->count);
    return code;
}

static int commit_reserve_all(omendb *db, struct commit_plan *plan, struct change *changes,
                              size_t count)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < count && code == OMENDB_OK; i++)
        code = commit_reserve(db, &changes[i]);
    for (size_t i = 0; i < plan->victim_count && code == OMENDB_OK; i++) {
        const struct location *victim = &plan->victims[i];
        if (victim->memtable != NULL)
            code = tombstones_prepare(victim->memtable->tombstones, victim->row);
        else if (victim->segment != NULL)
            code = tombstones_prepare(victim->segment->tombstones, victim->row);
    }
    return code;
}

/* ------------------------------------------------------------------ logging */

static void commit_put_u32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof value);
}

static void commit_put_u64(uint8_t *at, uint64_t value)
{
    memcpy(at, &value, sizeof value);
}

/* Head of a change, and for CREATE the body; returns the bytes used, a multiple of 8. */
static size_t commit_encode_head(const struct change *change, uint8_t *out)
{
    commit_put_u32(out, change->kind);
    commit_put_u32(out + 4, change->count);
    commit_put_u64(out + 8, change->collection->id);
    if (change->kind != CHANGE_CREATE)
        return COMMIT_HEAD_BYTES;
    const omendb_schema *schema = &change->collection->schema;
    uint8_t *body = out + COMMIT_HEAD_BYTES;
    size_t name_bytes = strlen(change->collection->name);
    const uint32_t fields[] = {schema->dim, schema->metric,      schema->scalar,
                               0,           schema->M,           schema->ef_construction,
                               schema->ef,  (uint32_t)name_bytes};
    memcpy(body, fields, sizeof fields);
    memcpy(body + 12, &schema->scale, sizeof schema->scale);
    commit_put_u64(body + 32, schema->seed);
    size_t padded = (name_bytes + 7) / 8 * 8;
    memset(body + COMMIT_CREATE_BYTES, 0, padded);
    memcpy(body + COMMIT_CREATE_BYTES, change->collection->name, name_bytes);
    return COMMIT_HEAD_BYTES + COMMIT_CREATE_BYTES + padded;
}

#define COMMIT_HEAD_MAX (COMMIT_HEAD_BYTES + COMMIT_CREATE_BYTES + 256)

static size_t commit_pieces(const struct change *change, uint8_t *head,
                            struct wal_piece pieces[COMMIT_PIECES])
{
    static const uint8_t zeros[8];
    int of_records = change->kind != CHANGE_CREATE && change->kind != CHANGE_DROP;
    if (of_records && change->count == 0)
        return 0;
    pieces[0] = (struct wal_piece){head, commit_encode_head(change, head)};
    if (!of_records)
        return 1;
    pieces[1] = (struct wal_piece){change->ids, change->count * sizeof(uint64_t)};
    if (change->kind == CHANGE_DELETE)
        return 2;
    size_t bytes = change->count * change->collection->vector_bytes;
    pieces[2] = (struct wal_piece){change->vectors, bytes};
    pieces[3] = (struct wal_piece){zeros, (8 - bytes % 8) % 8};
    return COMMIT_PIECES;
}

static int commit_append(omendb *db, const struct change *changes, size_t count, uint64_t commit)
{
    struct wal_piece one_pieces[COMMIT_PIECES], *pieces = one_pieces;
    uint8_t one_head[COMMIT_HEAD_MAX], *heads = one_head;
    size_t used = 0, bytes = 0;
    int code = OMENDB_OK;
    if (count > 1) {
        pieces = memory_array(&db->memory, count, COMMIT_PIECES * sizeof *pieces);
        heads = memory_array(&db->memory, count, COMMIT_HEAD_MAX);
        if (pieces == NULL || heads == NULL)
            code = OMENDB_NOMEM;
    }
    for (size_t i = 0; i < count && code == OMENDB_OK; i++)
        used += commit_pieces(&changes[i], heads + i * COMMIT_HEAD_MAX, pieces + used);
    for (size_t i = 0; i < used; i++)
        bytes += pieces[i].size;
    if (code == OMENDB_OK && db->wal != NULL)
        code = wal_append(db->wal, commit, WAL_COMMIT, pieces, used);
    if (code == OMENDB_OK)
        atomic_fetch_add(&db->log_bytes, bytes);
    if (count > 1) {
        memory_free(&db->memory, pieces, count * COMMIT_PIECES * sizeof *pieces);
        memory_free(&db->memory, heads, count * COMMIT_HEAD_MAX);
    }
    return code;
}

/* ------------------------------------------------------------------ applying */

static void commit_end_row(const struct location *victim, uint64_t commit)
{
    if (victim->memtable != NULL)
        tombstones_set(victim->memtable->tombstones, victim->row, commit);
    else if (victim->segment != NULL)
        tombstones_set(victim->segment->tombstones, victim->row, commit);
}

static void commit_apply_catalog(omendb *db, const struct change *change)
{
    if (change->kind == CHANGE_CREATE) {
        catalog_insert(&db->catalog, collection_reference(change->collection));
        if (change->collection->id >= db->next_collection)
            db->next_collection = change->collection->id + 1;
    } else {
        atomic_store(&change->collection->dropped, 1);
        catalog_remove(&db->catalog, change->collection);
        collection_release(change->collection);
    }
}

static void commit_apply_rows(const struct change *change, uint64_t commit)
{
    struct collection *collection = change->collection;
    uint64_t next = atomic_load_explicit(&collection->next_id, memory_order_relaxed);
    for (uint32_t i = 0; i < change->count; i++) {
        memtable_append(collection->active, change->ids[i],
                        change->vectors + i * collection->vector_bytes, commit);
        if (change->ids[i] >= next)
            next = change->ids[i] + 1;
    }
    atomic_store_explicit(&collection->next_id, next, memory_order_relaxed);
}

/* Nothing in here can fail. */
static void commit_apply(omendb *db, struct commit_plan *plan, const struct change *changes,
                         size_t count, uint64_t commit)
{
    for (size_t i = 0; i < plan->victim_count; i++)
        commit_end_row(&plan->victims[i], commit);
    for (size_t i = 0; i < count; i++) {
        if (changes[i].kind == CHANGE_CREATE || changes[i].kind == CHANGE_DROP)
            commit_apply_catalog(db, &changes[i]);
        else if (changes[i].kind != CHANGE_DELETE)
            commit_apply_rows(&changes[i], commit);
    }
    db->appended_commit = commit;
}

/* ------------------------------------------------------------------ the whole */

/* commit_mutex. commit: in for replay; out: the number given, or 0 when nothing was left to do. */
static int commit_locked(omendb *db, struct change *changes, size_t count, uint64_t snapshot,
                         int replay, uint64_t *commit)
{
    struct commit_plan plan = {NULL, 0, 0, snapshot, replay};
    uint64_t number = replay ? *commit : db->appended_commit + 1;
    int code = commit_plan_reserve(db, &plan, changes, count);
    size_t work = 0;
    for (size_t i = 0; i < count && code == OMENDB_OK; i++) {
        code = commit_validate(db, &plan, &changes[i]);
        work += changes[i].count != 0 || changes[i].kind == CHANGE_CREATE ||
                changes[i].kind == CHANGE_DROP;
    }
    if (code != OMENDB_OK || work == 0) {
        *commit = replay ? number : 0;
        goto done;
    }
    code = commit_reserve_all(db, &plan, changes, count);
    if (code == OMENDB_OK && !replay)
        code = commit_append(db, changes, count, number);
    if (code != OMENDB_OK)
        goto done;
    commit_apply(db, &plan, changes, count, number);
    *commit = number;
done:
    memory_free(&db->memory, plan.victims, plan.victim_capacity * sizeof *plan.victims);
    return code;
}

/* The first write after opening begins a log of its own, and publishes that the one that was
 * replayed is no longer needed. */
static int commit_begin_log(omendb *db)
{
    platform_mutex_lock(&db->commit_mutex);
    int missing = !db->log_published && !db->in_memory;
    platform_mutex_unlock(&db->commit_mutex);
    return missing ? checkpoint_run(db, 1) : OMENDB_OK;
}

static void commit_notice(omendb *db, const struct change *changes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (changes[i].kind == CHANGE_ADD || changes[i].kind == CHANGE_PUT)
            work_notice_index(changes[i].collection);
        if (changes[i].kind == CHANGE_DELETE || changes[i].kind == CHANGE_PUT)
            work_notice_merge(changes[i].collection);
    }
    if (atomic_load(&db->log_bytes) >= db->wal_limit)
        work_notice_log(db);
}

static int commit_throttle(const struct change *changes, size_t count)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < count && code == OMENDB_OK; i++) {
        if (changes[i].kind == CHANGE_ADD || changes[i].kind == CHANGE_PUT)
            code = work_throttle(changes[i].collection,
                                 changes[i].count * changes[i].collection->vector_bytes);
    }
    return code;
}

OMENDB_INTERNAL int commit_changes(omendb *db, struct change *changes, size_t count,
                                   uint64_t snapshot)
{
    uint64_t commit = 0;
    int code = commit_check_writable(db);
    if (code == OMENDB_OK)
        code = commit_begin_log(db);
    if (code == OMENDB_OK)
        code = commit_throttle(changes, count);
    if (code != OMENDB_OK)
        return code;
    platform_mutex_lock(&db->commit_mutex);
    code = commit_check_writable(db);
    if (code == OMENDB_OK)
        code = commit_locked(db, changes, count, snapshot, 0, &commit);
    int wait = !db->in_memory && db->sync == OMENDB_SYNC_FULL;
    if (code == OMENDB_OK && commit != 0 && !wait)
        commit_publish(db, commit);
    platform_mutex_unlock(&db->commit_mutex);
    if (code == OMENDB_POISONED)
        commit_poison(db, code);
    if (code != OMENDB_OK || commit == 0)
        return code;
    if (wait)
        code = commit_wait(db, commit);
    if (code == OMENDB_OK)
        commit_notice(db, changes, count);
    return code;
}

/* ------------------------------------------------------------------ replaying */

static int commit_bad_payload(uint64_t commit, size_t at)
{
    return error_set(
        OMENDB_CORRUPT,
        "log: commit %llu: byte %zu of the payload makes no sense; restore from a backup",
        (unsigned long long)commit, at);
}

static int commit_decode_create(omendb *db, uint64_t id, const uint8_t *body, size_t size,
                                size_t *used, struct collection **collection)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT, complete;
    uint32_t fields[8];
    char name[256] = {0};
    *collection = NULL;
    if (size < COMMIT_CREATE_BYTES)
        return OMENDB_CORRUPT;
    memcpy(fields, body, sizeof fields);
    size_t padded = ((size_t)fields[7] + 7) / 8 * 8;
    if (fields[7] == 0 || fields[7] > 255 || padded > size - COMMIT_CREATE_BYTES)
        return OMENDB_CORRUPT;
    schema.dim = fields[0];
    schema.metric = fields[1];
    schema.scalar = fields[2];
    memcpy(&schema.scale, body + 12, sizeof schema.scale);
    schema.M = fields[4];
    schema.ef_construction = fields[5];
    schema.ef = fields[6];
    memcpy(&schema.seed, body + 32, sizeof schema.seed);
    memcpy(name, body + COMMIT_CREATE_BYTES, fields[7]);
    *used = COMMIT_CREATE_BYTES + padded;
    if (schema_complete(&schema, &complete) != OMENDB_OK)
        return OMENDB_CORRUPT;
    return collection_create(db, id, name, &complete, collection);
}

static int commit_replay_create(omendb *db, uint64_t commit, struct change *change, uint64_t id,
                                const uint8_t *body, size_t size, size_t *used)
{
    struct collection *created;
    int found, code = commit_decode_create(db, id, body, size, used, &created);
    if (code != OMENDB_OK)
        return code == OMENDB_CORRUPT ? commit_bad_payload(commit, COMMIT_HEAD_BYTES) : code;
    /* A refreshed reader has it already, emptied; its handles stay good. */
    if (catalog_by_id(&db->catalog, id) != NULL) {
        collection_release(created);
        return OMENDB_OK;
    }
    catalog_find(&db->catalog, created->name, &found);
    change->collection = created;
    code = found ? commit_bad_payload(commit, COMMIT_HEAD_BYTES)
                 : catalog_reserve(db, &db->catalog, 1);
    if (code == OMENDB_OK) {
        struct commit_plan plan = {NULL, 0, 0, UINT64_MAX, 1};
        commit_apply(db, &plan, change, 1, commit);
    }
    collection_release(created);
    return code;
}

/* One change at `payload`; *used receives its bytes. */
static int commit_replay_change(omendb *db, uint64_t commit, const uint8_t *payload, size_t size,
                                size_t *used)
{
    struct change change = {0};
    uint64_t id;
    if (size < COMMIT_HEAD_BYTES)
        return commit_bad_payload(commit, 0);
    memcpy(&change.kind, payload, 4);
    memcpy(&change.count, payload + 4, 4);
    memcpy(&id, payload + 8, 8);
    const uint8_t *body = payload + COMMIT_HEAD_BYTES;
    size_t left = size - COMMIT_HEAD_BYTES, body_bytes = 0;
    change.collection = catalog_by_id(&db->catalog, id);
    if (change.kind == CHANGE_CREATE && change.collection != NULL)
        return commit_bad_payload(commit, 8);
    if (change.kind == CHANGE_CREATE) {
        int code = commit_replay_create(db, commit, &change, id, body, left, &body_bytes);
        *used = COMMIT_HEAD_BYTES + body_bytes;
        return code;
    }
    if (change.kind < CHANGE_ADD || change.kind > CHANGE_DROP || change.collection == NULL)
        return commit_bad_payload(commit, 0);
    if (change.kind == CHANGE_DROP)
        change.count = 0;
    body_bytes = memory_multiply(change.count, sizeof(uint64_t));
    if (change.kind == CHANGE_ADD || change.kind == CHANGE_PUT)
        body_bytes = memory_add(
            body_bytes,
            memory_add(memory_multiply(change.count, change.collection->vector_bytes), 7) / 8 * 8);
    if (body_bytes > left)
        return commit_bad_payload(commit, 4);
    *used = COMMIT_HEAD_BYTES + body_bytes;
    /* A delete drops absent ids from the list, so the list is a copy. */
    uint64_t *ids = memory_array(&db->memory, change.count, sizeof *ids);
    if (ids == NULL)
        return OMENDB_NOMEM;
    size_t id_bytes = change.count * sizeof *ids;
    memcpy(ids, body, id_bytes);
    change.ids = ids;
    change.vectors = body + id_bytes;
    change.skip_missing = 1;
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < change.count && code == OMENDB_OK; i++)
        code = ids[i] == OMENDB_ID_AUTO ? commit_bad_payload(commit, COMMIT_HEAD_BYTES) : code;
    if (code == OMENDB_OK)
        code = commit_locked(db, &change, 1, UINT64_MAX, 1, &commit);
    memory_free(&db->memory, ids, id_bytes);
    return code;
}

OMENDB_INTERNAL int commit_replay(omendb *db, uint64_t commit, const uint8_t *payload, size_t size)
{
    size_t at = 0;
    int code = OMENDB_OK;
    platform_mutex_lock(&db->commit_mutex);
    uint64_t before = db->appended_commit;
    while (at < size && code == OMENDB_OK) {
        size_t used = 0;
        code = commit_replay_change(db, commit, payload + at, size - at, &used);
        at += used;
    }
    if (code == OMENDB_OK) {
        db->appended_commit = commit;
        db->durable_commit = commit;
        commit_publish(db, commit);
        atomic_fetch_add(&db->log_bytes, size);
    } else {
        db->appended_commit = before; /* a refresh that is tried again applies the whole commit */
    }
    platform_mutex_unlock(&db->commit_mutex);
    return code;
}

#undef COMMIT_HEAD_BYTES
#undef COMMIT_CREATE_BYTES
#undef COMMIT_PIECES
#undef COMMIT_HEAD_MAX
#undef COMMIT_CODES_ROWS

/* ==============================================================================================
 * checkpoint.c
 * ============================================================================================== */

/* checkpoint.c: from memory and log to segments and manifest.
 *
 * 1. Freeze. As leader of syncing and under commit_mutex: sync the rest of the log, begin a new
 * one, take the commit number S, and let every memtable stop growing. Nothing else waits: later
 * commits go to new memtables and the new log.
 * 2. Write. Frozen memtables become parts of segment files (those under 4 MiB share one pack);
 * tombstones with an end <= S become an overlay. No graph is built: the rows not yet linked are
 * written as such.
 * 3. Publish. A manifest with S, then CURRENT. Before it a crash replays the old log and the new
 * one; after it only the new one.
 * 4. Install. Under commit_mutex versions take the segments in place of the memtables; all memory
 * for that was taken before 3, so it cannot fail. A segment shares the memtable's tombstones, since
 * rows keep their numbers. Any failure before 3 leaves the old state in force: memtables stay
 * frozen and are written by the next checkpoint.
 *
 * Overlay: a part for each segment with tombstones, one section of ascending u32 rows. */

#define CHECKPOINT_PACK_BYTES (UINT64_C(4) << 20)

/* A memtable on its way to becoming a segment. */
struct checkpoint_item {
    struct collection *collection; /* referenced */
    struct memtable *memtable;     /* referenced */
    uint32_t file; /* index in checkpoint.files; UINT32_MAX: nothing of it is alive */
    uint32_t part;
    struct segment *segment;
};

struct checkpoint {
    omendb *db;
    uint64_t commit;
    struct manifest manifest;
    struct collection **collections; /* referenced; parallel to manifest.collections */
    size_t collection_capacity;
    struct checkpoint_item *items;
    size_t item_count, item_capacity;
    struct manifest_file *files; /* written by this checkpoint */
    size_t file_count, file_capacity;
    struct shared_file **opened;
    struct segment_writer *pack;
    uint64_t pack_number;
    /* Overlay */
    struct segment *
        *marked; /* segments whose tombstones are written anew; referenced by versions or items */
    size_t marked_count, marked_capacity;
    struct manifest_file overlay; /* number 0: none */
    struct version **versions;    /* parallel to collections: to be installed, or NULL */
    uint64_t log_bytes;           /* of the logs that it makes superfluous */
};

/* ------------------------------------------------------------------ ids */

struct checkpoint_id {
    uint64_t id;
    uint32_t row;
};

static int checkpoint_compare_ids(const void *left, const void *right)
{
    const struct checkpoint_id *a = left, *b = right;
    if (a->id != b->id)
        return a->id < b->id ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

static int checkpoint_write_sorted(struct segment_writer *writer, struct memory *memory,
                                   const uint64_t *ids, uint32_t rows)
{
    struct checkpoint_id *sorted = memory_array(memory, rows, sizeof *sorted);
    if (sorted == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < rows; i++)
        sorted[i] = (struct checkpoint_id){ids[i], i};
    sort_array(sorted, rows, sizeof *sorted, checkpoint_compare_ids);
    int code = segment_writer_begin_section(writer, SECTION_SORTED_IDS);
    for (uint32_t i = 0; i < rows && code == OMENDB_OK; i++)
        code = segment_writer_append(writer, &sorted[i].id, sizeof sorted[i].id);
    if (code == OMENDB_OK)
        code = segment_writer_begin_section(writer, SECTION_SORTED_ROWS);
    for (uint32_t i = 0; i < rows && code == OMENDB_OK; i++)
        code = segment_writer_append(writer, &sorted[i].row, sizeof sorted[i].row);
    memory_free(memory, sorted, rows * sizeof *sorted);
    return code;
}

static int checkpoint_write_filter(struct segment_writer *writer, struct memory *memory,
                                   const uint64_t *ids, uint32_t rows)
{
    size_t bytes = idmap_filter_bytes(rows);
    uint8_t *filter = memory_zalloc(memory, bytes);
    if (filter == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < rows; i++)
        idmap_filter_add(filter, bytes, ids[i]);
    int code = segment_writer_begin_section(writer, SECTION_ID_FILTER);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, filter, bytes);
    memory_free(memory, filter, bytes);
    return code;
}

OMENDB_INTERNAL int checkpoint_write_ids(struct segment_writer *writer, struct memory *memory,
                                         const uint64_t *ids, uint32_t rows, struct part_info *info)
{
    int ascend = 1;
    info->smallest_id = UINT64_MAX;
    info->largest_id = 0;
    for (uint32_t i = 0; i < rows; i++) {
        ascend &= i == 0 || ids[i - 1] <= ids[i];
        info->smallest_id = ids[i] < info->smallest_id ? ids[i] : info->smallest_id;
        info->largest_id = ids[i] > info->largest_id ? ids[i] : info->largest_id;
    }
    info->flags |= ascend ? SEGMENT_IDS_ASCEND : 0;
    int code = segment_writer_begin_section(writer, SECTION_IDS);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, ids, rows * sizeof *ids);
    if (code == OMENDB_OK && !ascend)
        code = checkpoint_write_sorted(writer, memory, ids, rows);
    if (code == OMENDB_OK)
        code = checkpoint_write_filter(writer, memory, ids, rows);
    return code;
}

/* ------------------------------------------------------------------ one memtable */

OMENDB_INTERNAL struct begin_array *begin_array_create(struct memory *memory, uint32_t rows)
{
    struct begin_array *begins = memory_zalloc(memory, sizeof *begins + rows * sizeof(uint64_t));
    if (begins == NULL)
        return NULL;
    begins->memory = memory;
    begins->rows = rows;
    return begins;
}

/* Rows of a growing store lie in runs of 64. */
static int checkpoint_write_rows(struct segment_writer *writer, enum section_type type,
                                 const struct rows_view *rows, uint32_t count)
{
    int code = segment_writer_begin_section(writer, type);
    for (uint32_t row = 0; row < count && code == OMENDB_OK; row += rows->mask + 1) {
        uint32_t run = count - row < rows->mask + 1 ? count - row : rows->mask + 1;
        code = segment_writer_append(writer, rows_at(rows, row), run * rows->stride);
    }
    return code;
}

OMENDB_INTERNAL void checkpoint_describe(const struct collection *collection,
                                         struct part_info *info)
{
    memset(info, 0, sizeof *info);
    info->collection = collection->id;
    info->M = collection->schema.M;
    info->vector_stride = (uint32_t)collection->vector_bytes;
    info->dim = collection->schema.dim;
    info->scalar = collection->schema.scalar;
    info->metric = collection->schema.metric;
}

OMENDB_INTERNAL void checkpoint_describe_graph(const struct graph_view *view, uint32_t indexed_rows,
                                               struct part_info *info)
{
    /* An insertion that failed can leave the entry point beyond the finished rows: then the graph
     * is of no use. */
    info->indexed_rows = view->entry_row < indexed_rows ? indexed_rows : 0;
    info->upper_count = info->indexed_rows == 0 ? 0 : view->upper_count;
    info->entry_row = view->entry_row;
    info->entry_level = view->entry_level;
}

OMENDB_INTERNAL int checkpoint_write_links(struct segment_writer *writer,
                                           const struct graph_view *view,
                                           const struct part_info *info)
{
    int code = OMENDB_OK;
    if (info->indexed_rows == 0)
        return OMENDB_OK;
    code = checkpoint_write_rows(writer, SECTION_LINKS, &view->links, info->indexed_rows);
    if (code == OMENDB_OK)
        code = checkpoint_write_rows(writer, SECTION_LEVELS, &view->levels, info->indexed_rows);
    if (code == OMENDB_OK)
        code = checkpoint_write_rows(writer, SECTION_UPPER_INDEX, &view->upper_index,
                                     info->indexed_rows);
    if (code == OMENDB_OK)
        code = checkpoint_write_rows(writer, SECTION_UPPER_LINKS, &view->upper_links,
                                     info->upper_count);
    return code;
}

OMENDB_INTERNAL struct code_format checkpoint_code_format(const struct collection *collection,
                                                          const struct part_info *info)
{
    return (struct code_format){collection->format, info->code_low, info->code_step};
}

/* Chooses the range of the codes from rows spread over all. */
OMENDB_INTERNAL int checkpoint_choose_codes(const struct collection *collection,
                                            const struct rows_view *vectors, uint32_t rows,
                                            struct code_format *format)
{
    struct code_sample sample;
    uint32_t take = rows < CODES_SAMPLE_VECTORS ? rows : CODES_SAMPLE_VECTORS;
    int code = codes_sample_begin(&sample, &collection->db->memory);
    if (code != OMENDB_OK)
        return code;
    for (uint32_t i = 0; i < take; i++)
        codes_sample_add(&sample, &collection->format,
                         rows_at(vectors, (uint32_t)((uint64_t)i * rows / take)));
    codes_choose(&sample, &collection->format, format);
    codes_sample_end(&sample);
    return OMENDB_OK;
}

OMENDB_INTERNAL void checkpoint_make_codes(const struct collection *collection,
                                           const struct rows_view *vectors, uint32_t rows,
                                           struct part_info *info, uint8_t **codes)
{
    struct code_format format;
    size_t stride = codes_stride(collection->schema.dim);
    int exact = 1;
    *codes = NULL;
    if (rows == 0 || !codes_apply_to(&collection->format) ||
        checkpoint_choose_codes(collection, vectors, rows, &format) != OMENDB_OK ||
        format.step == 0.0f)
        return;
    *codes = memory_alloc_aligned(&collection->db->memory, memory_multiply(rows, stride));
    if (*codes == NULL)
        return;
    for (uint32_t row = 0; row < rows; row++)
        exact &= codes_encode(&format, rows_at(vectors, row), *codes + row * stride) == CODE_EXACT;
    info->code_low = format.low;
    info->code_step = format.step;
    if (exact && codes_are_exact(&format))
        info->flags |= SEGMENT_CODES_EXACT;
}

static int checkpoint_write_codes(struct segment_writer *writer, const struct checkpoint_item *item,
                                  const struct rows_view *vectors, struct part_info *info)
{
    uint8_t *codes;
    size_t bytes = info->rows * codes_stride(info->dim);
    if (info->indexed_rows == 0) /* nothing to walk, and soon merged */
        return OMENDB_OK;
    checkpoint_make_codes(item->collection, vectors, info->rows, info, &codes);
    if (codes == NULL)
        return OMENDB_OK;
    int code = segment_writer_begin_section(writer, SECTION_CODES);
    if (code == OMENDB_OK)
        code = segment_writer_append(writer, codes, bytes);
    memory_free_aligned(item->memtable->memory, codes, bytes);
    return code;
}

static int checkpoint_write_memtable(struct segment_writer *writer, struct checkpoint_item *item)
{
    struct memtable *memtable = item->memtable;
    struct graph_view view;
    struct part_info info;
    graph_get_view(memtable->graph, &view);
    struct rows_view vectors = memtable_vectors(memtable);
    checkpoint_describe(item->collection, &info);
    info.rows = atomic_load(&memtable->count);
    checkpoint_describe_graph(
        &view, memtable_has_drifted(memtable) ? 0 : atomic_load(&memtable->indexed), &info);
    uint64_t *ids = memory_array(memtable->memory, info.rows, sizeof *ids);
    if (ids == NULL)
        return OMENDB_NOMEM;
    for (uint32_t row = 0; row < info.rows; row++)
        ids[row] = memtable_id(memtable, row);
    int code = segment_writer_begin_part(writer);
    if (code == OMENDB_OK)
        code = checkpoint_write_rows(writer, SECTION_VECTORS, &vectors, info.rows);
    if (code == OMENDB_OK)
        code = checkpoint_write_links(writer, &view, &info);
    if (code == OMENDB_OK)
        code = checkpoint_write_codes(writer, item, &vectors, &info);
    if (code == OMENDB_OK)
        code = checkpoint_write_ids(writer, memtable->memory, ids, info.rows, &info);
    if (code == OMENDB_OK)
        code = segment_writer_end_part(writer, &info);
    item->part = segment_writer_parts(writer) - 1;
    memory_free(memtable->memory, ids, info.rows * sizeof *ids);
    return code;
}

/* Nothing is inserted after this, and every row of the graph can be reached. */
static int checkpoint_seal(omendb *db, struct memtable *memtable)
{
    memtable_seal(memtable);
    uint32_t indexed = atomic_load(&memtable->indexed);
    struct scratch *scratch = scratch_take(db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    graph_cut(memtable->graph, indexed);
    int code = indexed == 0 ? OMENDB_OK : graph_repair(memtable->graph, scratch->graph, indexed);
    scratch_give(db, scratch);
    return code;
}

static uint64_t checkpoint_memtable_bytes(const struct checkpoint_item *item)
{
    uint64_t rows = atomic_load(&item->memtable->count);
    return rows * (item->collection->vector_bytes +
                   item->collection->schema.M * 2 * sizeof(uint32_t) + 32);
}

struct checkpoint_alive {
    uint64_t horizon;
    uint32_t dead;
};

static int checkpoint_count_dead(void *context, uint32_t row, uint64_t end)
{
    struct checkpoint_alive *alive = context;
    (void)row;
    alive->dead += end <= alive->horizon;
    return 0;
}

/* Whether any transaction that is open or to come, or a replay from S on, can see a row of it. */
static int checkpoint_is_alive(const struct checkpoint *checkpoint, const struct memtable *memtable)
{
    uint64_t oldest = txn_oldest(checkpoint->db);
    struct checkpoint_alive alive = {oldest < checkpoint->commit ? oldest : checkpoint->commit, 0};
    uint32_t rows = atomic_load(&memtable->count);
    tombstones_each(memtable->tombstones, rows, checkpoint_count_dead, &alive);
    return alive.dead < rows;
}

/* ------------------------------------------------------------------ files */

static uint64_t checkpoint_next_file(omendb *db)
{
    return atomic_fetch_add(&db->next_file, 1);
}

OMENDB_INTERNAL int checkpoint_protect(omendb *db, uint64_t *number)
{
    int code = OMENDB_BUSY;
    platform_mutex_lock(&db->maintenance_mutex);
    for (size_t i = 0; i < DATABASE_UNPUBLISHED && code != OMENDB_OK; i++) {
        if (db->unpublished[i] != 0)
            continue;
        *number = db->unpublished[i] = checkpoint_next_file(db);
        code = OMENDB_OK;
    }
    platform_mutex_unlock(&db->maintenance_mutex);
    return code == OMENDB_OK
               ? code
               : error_set(code, "too many files are being written at once; try again");
}

OMENDB_INTERNAL void checkpoint_unprotect(omendb *db, uint64_t number)
{
    for (size_t i = 0; i < DATABASE_UNPUBLISHED; i++) {
        if (db->unpublished[i] == number)
            db->unpublished[i] = 0;
    }
}

static int checkpoint_finish_file(struct checkpoint *checkpoint, struct segment_writer *writer,
                                  uint64_t number)
{
    omendb *db = checkpoint->db;
    if (checkpoint->file_count == checkpoint->file_capacity) {
        size_t capacity = checkpoint->file_capacity * 2 + 8;
        struct manifest_file *files =
            memory_resize(&db->memory, checkpoint->files, checkpoint->file_capacity * sizeof *files,
                          capacity * sizeof *files);
        if (files == NULL)
            return OMENDB_NOMEM;
        checkpoint->files = files;
        checkpoint->file_capacity = capacity;
    }
    struct manifest_file *file = &checkpoint->files[checkpoint->file_count];
    *file = (struct manifest_file){number, 0, 0, STORAGE_SEGMENT};
    int code = segment_writer_finish(writer, &file->size, &file->footer_crc);
    if (code == OMENDB_OK)
        checkpoint->file_count++;
    return code;
}

static int checkpoint_write_own_file(struct checkpoint *checkpoint, struct checkpoint_item *item)
{
    omendb *db = checkpoint->db;
    struct segment_writer *writer = NULL;
    uint64_t number = checkpoint_next_file(db);
    int code = segment_writer_create(&db->storage, STORAGE_SEGMENT, number,
                                     checkpoint_memtable_bytes(item), &writer);
    if (code == OMENDB_OK)
        code = checkpoint_write_memtable(writer, item);
    item->file = (uint32_t)checkpoint->file_count;
    if (code == OMENDB_OK)
        code = checkpoint_finish_file(checkpoint, writer, number);
    segment_writer_destroy(writer);
    return code;
}

static int checkpoint_write_packed(struct checkpoint *checkpoint, struct checkpoint_item *item)
{
    omendb *db = checkpoint->db;
    int code = OMENDB_OK;
    if (checkpoint->pack == NULL) {
        checkpoint->pack_number = checkpoint_next_file(db);
        code = segment_writer_create(&db->storage, STORAGE_SEGMENT, checkpoint->pack_number, 0,
                                     &checkpoint->pack);
    }
    return code == OMENDB_OK ? checkpoint_write_memtable(checkpoint->pack, item) : code;
}

/* Large memtables first, each to its file; then the small ones to a pack, whose index is the last.
 */
static int checkpoint_write_items(struct checkpoint *checkpoint)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < checkpoint->item_count && code == OMENDB_OK; i++) {
        struct checkpoint_item *item = &checkpoint->items[i];
        item->file = UINT32_MAX;
        code = checkpoint_seal(checkpoint->db, item->memtable);
        if (code == OMENDB_OK && checkpoint_is_alive(checkpoint, item->memtable) &&
            checkpoint_memtable_bytes(item) >= CHECKPOINT_PACK_BYTES)
            code = checkpoint_write_own_file(checkpoint, item);
    }
    uint32_t pack_index = (uint32_t)checkpoint->file_count;
    for (size_t i = 0; i < checkpoint->item_count && code == OMENDB_OK; i++) {
        struct checkpoint_item *item = &checkpoint->items[i];
        if (item->file != UINT32_MAX || !checkpoint_is_alive(checkpoint, item->memtable))
            continue;
        item->file = pack_index;
        code = checkpoint_write_packed(checkpoint, item);
    }
    if (code == OMENDB_OK && checkpoint->pack != NULL)
        code = checkpoint_finish_file(checkpoint, checkpoint->pack, checkpoint->pack_number);
    return code;
}

static int checkpoint_copy_begins(omendb *db, const struct memtable *memtable,
                                  struct begin_array **begins)
{
    *begins = NULL;
    uint64_t newest = atomic_load(&memtable->newest_begin);
    if (txn_oldest(db) >= newest)
        return OMENDB_OK;
    uint32_t rows = atomic_load(&memtable->count);
    struct begin_array *copy = begin_array_create(&db->memory, rows);
    if (copy == NULL)
        return OMENDB_NOMEM;
    copy->newest = newest;
    for (uint32_t row = 0; row < rows; row++)
        copy->begin[row] = memtable_begin(memtable, row);
    *begins = copy;
    return OMENDB_OK;
}

static int checkpoint_open_segments(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    int code = OMENDB_OK;
    if (checkpoint->file_count == 0)
        return OMENDB_OK;
    checkpoint->opened =
        memory_zalloc(&db->memory, checkpoint->file_capacity * sizeof *checkpoint->opened);
    if (checkpoint->opened == NULL)
        return OMENDB_NOMEM;
    for (size_t i = 0; i < checkpoint->file_count && code == OMENDB_OK; i++)
        code = shared_file_open(db, &checkpoint->files[i], &checkpoint->opened[i]);
    for (size_t i = 0; i < checkpoint->item_count && code == OMENDB_OK; i++) {
        struct checkpoint_item *item = &checkpoint->items[i];
        struct begin_array *begins;
        if (item->file == UINT32_MAX)
            continue;
        code = checkpoint_copy_begins(db, item->memtable, &begins);
        if (code != OMENDB_OK)
            break;
        struct tombstones *tombstones = tombstones_reference(item->memtable->tombstones);
        code = segment_open(db, item->collection, checkpoint->opened[item->file], item->part,
                            tombstones, begins, &item->segment);
        if (code != OMENDB_OK) {
            tombstones_release(tombstones);
            begin_array_destroy(begins);
        }
    }
    return code;
}

/* ------------------------------------------------------------------ overlay */

static int checkpoint_mark(struct checkpoint *checkpoint, struct segment *segment)
{
    if (atomic_load(&segment->tombstones->newest) <= segment->overlay_commit)
        return OMENDB_OK;
    if (checkpoint->marked_count == checkpoint->marked_capacity) {
        size_t capacity = checkpoint->marked_capacity * 2 + 8;
        struct segment **marked =
            memory_resize(&checkpoint->db->memory, checkpoint->marked,
                          checkpoint->marked_capacity * sizeof *marked, capacity * sizeof *marked);
        if (marked == NULL)
            return OMENDB_NOMEM;
        checkpoint->marked = marked;
        checkpoint->marked_capacity = capacity;
    }
    checkpoint->marked[checkpoint->marked_count++] = segment;
    return OMENDB_OK;
}

struct checkpoint_overlay {
    struct segment_writer *writer;
    uint64_t commit;
    uint32_t rows;
    int code;
};

static int checkpoint_write_tombstone(void *context, uint32_t row, uint64_t end)
{
    struct checkpoint_overlay *overlay = context;
    if (end > overlay->commit)
        return 0;
    overlay->rows++;
    overlay->code = segment_writer_append(overlay->writer, &row, sizeof row);
    return overlay->code;
}

static int checkpoint_write_overlay_part(struct segment_writer *writer,
                                         const struct segment *segment, uint64_t commit)
{
    struct part_info info = {0};
    struct checkpoint_overlay overlay = {writer, commit, 0, OMENDB_OK};
    int code = segment_writer_begin_part(writer);
    if (code == OMENDB_OK)
        code = segment_writer_begin_section(writer, SECTION_TOMBSTONES);
    if (code == OMENDB_OK)
        code = tombstones_each(segment->tombstones, segment->info.rows, checkpoint_write_tombstone,
                               &overlay);
    info.collection = segment->info.collection;
    info.target_file = segment->file->entry.number;
    info.target_part = segment->part;
    info.rows = overlay.rows;
    if (code == OMENDB_OK)
        code = segment_writer_end_part(writer, &info);
    return code;
}

/* All marked segments to one file; part i is marked[i]. */
static int checkpoint_write_overlay(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    struct segment_writer *writer = NULL;
    if (checkpoint->marked_count == 0)
        return OMENDB_OK;
    uint64_t number = checkpoint_next_file(db);
    int code = segment_writer_create(&db->storage, STORAGE_OVERLAY, number, 0, &writer);
    for (size_t i = 0; i < checkpoint->marked_count && code == OMENDB_OK; i++)
        code = checkpoint_write_overlay_part(writer, checkpoint->marked[i], checkpoint->commit);
    checkpoint->overlay = (struct manifest_file){number, 0, 0, STORAGE_OVERLAY};
    if (code == OMENDB_OK)
        code = segment_writer_finish(writer, &checkpoint->overlay.size,
                                     &checkpoint->overlay.footer_crc);
    segment_writer_destroy(writer);
    return code;
}

/* ------------------------------------------------------------------ manifest */

static int checkpoint_add_file(omendb *db, struct manifest *manifest,
                               const struct manifest_file *file, uint32_t *capacity)
{
    for (uint32_t i = manifest->file_count; i-- > 0;) {
        if (manifest->files[i].number == file->number)
            return OMENDB_OK;
    }
    if (manifest->file_count == *capacity) {
        uint32_t larger = *capacity * 2 + 8;
        struct manifest_file *files = memory_array(&db->memory, larger, sizeof *files);
        if (files == NULL)
            return OMENDB_NOMEM;
        if (manifest->file_count != 0)
            memcpy(files, manifest->files, manifest->file_count * sizeof *files);
        memory_free(&db->memory, manifest->files, *capacity * sizeof *files);
        manifest->files = files;
        *capacity = larger;
    }
    manifest->files[manifest->file_count++] = *file;
    return OMENDB_OK;
}

static const struct manifest_file *checkpoint_find_file(const struct manifest *manifest,
                                                        uint64_t number)
{
    for (uint32_t i = 0; i < manifest->file_count; i++) {
        if (manifest->files[i].number == number)
            return &manifest->files[i];
    }
    return NULL;
}

/* The entry of one segment, with the new overlay where it has a part in it. */
static int checkpoint_enter_segment(struct checkpoint *checkpoint, const struct segment *segment,
                                    struct manifest_segment *entry, uint32_t *file_capacity)
{
    omendb *db = checkpoint->db;
    *entry = (struct manifest_segment){segment->file->entry.number, segment->part,
                                       segment->overlay_part, segment->overlay_file};
    const struct manifest_file *overlay =
        segment->overlay_file == 0 ? NULL
                                   : checkpoint_find_file(&db->published, segment->overlay_file);
    for (size_t i = 0; i < checkpoint->marked_count; i++) {
        if (checkpoint->marked[i] != segment)
            continue;
        entry->overlay_file = checkpoint->overlay.number;
        entry->overlay_part = (uint32_t)i;
        overlay = &checkpoint->overlay;
    }
    int code = checkpoint_add_file(db, &checkpoint->manifest, &segment->file->entry, file_capacity);
    if (code == OMENDB_OK && overlay != NULL)
        code = checkpoint_add_file(db, &checkpoint->manifest, overlay, file_capacity);
    return code;
}

static uint32_t checkpoint_new_segments(const struct checkpoint *checkpoint,
                                        const struct collection *collection)
{
    uint32_t count = 0;
    for (size_t i = 0; i < checkpoint->item_count; i++)
        count +=
            checkpoint->items[i].collection == collection && checkpoint->items[i].segment != NULL;
    return count;
}

/* Replaced only under maintenance_mutex, which the caller holds, as are segments. */
static int checkpoint_enter_calibration(omendb *db, const struct collection *collection,
                                        struct manifest_collection *entry)
{
    const struct calibration *calibration = atomic_load(&collection->calibration);
    if (calibration == NULL)
        return OMENDB_OK;
    entry->calibration = memory_alloc(&db->memory, sizeof *entry->calibration);
    if (entry->calibration == NULL)
        return OMENDB_NOMEM;
    *entry->calibration = *calibration;
    entry->calibration->older = NULL;
    return OMENDB_OK;
}

static int checkpoint_enter_collection(struct checkpoint *checkpoint, size_t index,
                                       uint32_t *file_capacity)
{
    omendb *db = checkpoint->db;
    struct collection *collection = checkpoint->collections[index];
    struct manifest_collection *entry = &checkpoint->manifest.collections[index];
    struct version *version = version_acquire(collection);
    uint32_t count = version->segment_count + checkpoint_new_segments(checkpoint, collection);
    int code = checkpoint_enter_calibration(db, collection, entry);
    if (count != 0)
        entry->segments = memory_array(&db->memory, count, sizeof *entry->segments);
    if (count != 0 && entry->segments == NULL)
        code = OMENDB_NOMEM;
    else
        entry->segment_count = count;
    uint32_t at = 0;
    for (uint32_t i = 0; i < version->segment_count && code == OMENDB_OK; i++)
        code = checkpoint_enter_segment(checkpoint, version->segments[i], &entry->segments[at++],
                                        file_capacity);
    for (size_t i = 0; i < checkpoint->item_count && code == OMENDB_OK; i++) {
        const struct checkpoint_item *item = &checkpoint->items[i];
        if (item->collection == collection && item->segment != NULL)
            code = checkpoint_enter_segment(checkpoint, item->segment, &entry->segments[at++],
                                            file_capacity);
    }
    version_release(version);
    return code;
}

/* manifest_destroy frees exactly file_count entries, so the list is cut to that; passes an earlier
 * error on. */
static int checkpoint_trim_files(struct checkpoint *checkpoint, uint32_t file_capacity, int code)
{
    omendb *db = checkpoint->db;
    struct manifest *manifest = &checkpoint->manifest;
    if (manifest->files == NULL)
        return code;
    struct manifest_file *exact = memory_array(&db->memory, manifest->file_count, sizeof *exact);
    if (exact != NULL)
        memcpy(exact, manifest->files, manifest->file_count * sizeof *exact);
    else
        manifest->file_count = 0;
    memory_free(&db->memory, manifest->files, file_capacity * sizeof *exact);
    manifest->files = exact;
    return exact == NULL ? OMENDB_NOMEM : code;
}

static int checkpoint_fill_manifest(struct checkpoint *checkpoint)
{
    uint32_t file_capacity = 0;
    int code = OMENDB_OK;
    for (size_t i = 0; i < checkpoint->manifest.collection_count && code == OMENDB_OK; i++)
        code = checkpoint_enter_collection(checkpoint, i, &file_capacity);
    return checkpoint_trim_files(checkpoint, file_capacity, code);
}

/* The former manifest: its files stay until it is known that no reader of another process holds it.
 */
static void checkpoint_retain(omendb *db, uint64_t number)
{
    if (number == 0)
        return;
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        if (db->retained[i] == 0) {
            db->retained[i] = number;
            return;
        }
    }
    db->retained_overflow = 1;
}

/* Makes the manifest on disk and keeps it as the published one. */
static int checkpoint_publish(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    struct manifest *manifest = &checkpoint->manifest;
    manifest->commit = checkpoint->commit;
    manifest->number = checkpoint_next_file(db);
    manifest->next_file = atomic_load(&db->next_file);
    /* It syncs the directory before CURRENT is renamed, which covers the files that it names. */
    int code = manifest_write(&db->storage, manifest);
    /* Which manifest a crash would find, and whether the entries of its files are on the device, is
     * not known any more. */
    if (code == OMENDB_IOERR || code == OMENDB_POISONED)
        return commit_poison(db, code);
    if (code != OMENDB_OK)
        return code;
    checkpoint_retain(db, db->published.number);
    manifest_destroy(&db->memory, &db->published);
    db->published = *manifest;
    memset(manifest, 0, sizeof *manifest);
    /* Outputs of merges whose own publishing failed need no protection any more. */
    for (size_t i = 0; i < DATABASE_UNPUBLISHED; i++) {
        if (checkpoint_find_file(&db->published, db->unpublished[i]) != NULL)
            db->unpublished[i] = 0;
    }
    atomic_store(&db->checkpoint_commit, checkpoint->commit);
    platform_mutex_lock(&db->commit_mutex);
    if (db->wal != NULL && db->wal->number == db->published.wal_number)
        db->log_published = 1;
    platform_mutex_unlock(&db->commit_mutex);
    for (size_t i = 0; i < checkpoint->marked_count; i++) {
        checkpoint->marked[i]->overlay_file = checkpoint->overlay.number;
        checkpoint->marked[i]->overlay_part = (uint32_t)i;
        checkpoint->marked[i]->overlay_commit = checkpoint->commit;
    }
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ freezing */

static int checkpoint_add_item(struct checkpoint *checkpoint, struct collection *collection,
                               struct memtable *memtable)
{
    if (checkpoint->item_count == checkpoint->item_capacity) {
        size_t capacity = checkpoint->item_capacity * 2 + 8;
        struct checkpoint_item *items =
            memory_resize(&checkpoint->db->memory, checkpoint->items,
                          checkpoint->item_capacity * sizeof *items, capacity * sizeof *items);
        if (items == NULL)
            return OMENDB_NOMEM;
        checkpoint->items = items;
        checkpoint->item_capacity = capacity;
    }
    checkpoint->items[checkpoint->item_count++] = (struct checkpoint_item){
        collection_reference(collection), memtable_reference(memtable), UINT32_MAX, 0, NULL};
    return OMENDB_OK;
}

/* Copies the catalog as it is at S. commit_mutex. */
static int checkpoint_list_collections(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    struct manifest *manifest = &checkpoint->manifest;
    size_t count = db->catalog.count;
    manifest->next_collection = db->next_collection;
    if (count == 0)
        return OMENDB_OK;
    checkpoint->collections = memory_array(&db->memory, count, sizeof *checkpoint->collections);
    checkpoint->versions = memory_zalloc(&db->memory, count * sizeof *checkpoint->versions);
    manifest->collections =
        memory_zalloc(&db->memory, memory_multiply(count, sizeof *manifest->collections));
    checkpoint->collection_capacity = count;
    if (manifest->collections != NULL)
        manifest->collection_count = (uint32_t)count;
    if (checkpoint->collections == NULL || checkpoint->versions == NULL ||
        manifest->collections == NULL) {
        memory_free(&db->memory, checkpoint->collections, count * sizeof *checkpoint->collections);
        checkpoint->collections = NULL;
        return OMENDB_NOMEM;
    }
    for (size_t i = 0; i < count; i++) {
        struct collection *collection = db->catalog.items[i];
        struct manifest_collection *entry = &manifest->collections[i];
        checkpoint->collections[i] = collection_reference(collection);
        entry->id = collection->id;
        entry->next_id = atomic_load(&collection->next_id);
        memcpy(entry->name, collection->name, sizeof entry->name);
        entry->schema = collection->schema;
    }
    return OMENDB_OK;
}

static int checkpoint_list_memtables(struct checkpoint *checkpoint)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < checkpoint->manifest.collection_count && code == OMENDB_OK; i++) {
        const struct version *version = atomic_load(&checkpoint->collections[i]->version);
        for (uint32_t m = 0; m < version->memtable_count && code == OMENDB_OK; m++)
            code =
                checkpoint_add_item(checkpoint, checkpoint->collections[i], version->memtables[m]);
    }
    return code;
}

/* After a sync that failed, or files of which it is not known whether a crash brings them back. */
static int checkpoint_poison_if_unsure(omendb *db, int code)
{
    if (code == OMENDB_POISONED || (code != OMENDB_OK && atomic_load(&db->storage.sync_failed)))
        return commit_poison(db, code);
    return code;
}

/* Replaces the log; what was appended before is synced. Leader, commit_mutex. */
static int checkpoint_rotate_log(omendb *db)
{
    struct wal *next = NULL;
    int code = OMENDB_OK;
    /* A log without records, left by a checkpoint that failed later, serves again. */
    if (db->in_memory || (db->wal != NULL && db->wal->length == WAL_HEADER_BYTES))
        return OMENDB_OK;
    if (db->wal != NULL && db->durable_commit < db->appended_commit) {
        code = wal_sync(db->wal);
        if (code != OMENDB_OK)
            return commit_poison(db, code);
        wal_set_durable(db->wal, db->wal->length);
    }
    next = memory_zalloc(&db->memory, sizeof *next);
    if (next == NULL)
        return OMENDB_NOMEM;
    uint64_t preallocate = db->wal_limit < (UINT64_C(4) << 20) ? db->wal_limit : UINT64_C(4) << 20;
    /* After recovery there is no log that this one follows: what was replayed is not known to be
     * durable, so nothing may depend on it. */
    code = wal_create(&db->storage, checkpoint_next_file(db), db->appended_commit + 1,
                      db->wal == NULL ? 0 : db->wal->number, db->wal == NULL ? 0 : db->wal->length,
                      preallocate, 1, next);
    if (code != OMENDB_OK) {
        memory_free(&db->memory, next, sizeof *next);
        /* Before the present log grows: after a crash the new one might come back and end it. */
        return checkpoint_poison_if_unsure(db, code);
    }
    struct wal *last = db->wal;
    /* One that follows none is reached only once a manifest names it. */
    if (db->wal == NULL)
        db->log_published = 0;
    db->wal = next;
    if (last != NULL) {
        wal_close(last);
        memory_free(&db->memory, last, sizeof *last);
    }
    return OMENDB_OK;
}

static int checkpoint_freeze_locked(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    int code = checkpoint_list_collections(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_list_memtables(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_rotate_log(db);
    if (code != OMENDB_OK)
        return code;
    checkpoint->commit = db->appended_commit;
    checkpoint->manifest.wal_number = db->wal == NULL ? 0 : db->wal->number;
    checkpoint->log_bytes = atomic_exchange(&db->log_bytes, 0);
    for (size_t i = 0; i < checkpoint->manifest.collection_count; i++)
        checkpoint->collections[i]->active = NULL;
    commit_publish(db, db->appended_commit);
    platform_mutex_lock(&db->sync_mutex);
    db->durable_commit = db->appended_commit;
    platform_mutex_unlock(&db->sync_mutex);
    return OMENDB_OK;
}

static int checkpoint_freeze(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    commit_lead(db);
    /* Most of the log is synced here, without the mutex; the rest is little. */
    int code = commit_sync_led(db);
    if (code == OMENDB_OK) {
        platform_mutex_lock(&db->commit_mutex);
        code = checkpoint_freeze_locked(checkpoint);
        platform_mutex_unlock(&db->commit_mutex);
    }
    commit_unlead(db);
    return code;
}

/* ------------------------------------------------------------------ installing */

static int checkpoint_is_frozen(const struct checkpoint *checkpoint,
                                const struct memtable *memtable)
{
    for (size_t i = 0; i < checkpoint->item_count; i++) {
        if (checkpoint->items[i].memtable == memtable)
            return 1;
    }
    return 0;
}

static int checkpoint_has_items(const struct checkpoint *checkpoint,
                                const struct collection *collection)
{
    for (size_t i = 0; i < checkpoint->item_count; i++) {
        if (checkpoint->items[i].collection == collection)
            return 1;
    }
    return 0;
}

/* Versions with room for what install will put there, and for the memtables that came since the
 * freeze. */
static int checkpoint_prepare_versions(struct checkpoint *checkpoint)
{
    for (size_t i = 0; i < checkpoint->manifest.collection_count; i++) {
        struct collection *collection = checkpoint->collections[i];
        if (!checkpoint_has_items(checkpoint, collection))
            continue;
        struct version *version = version_acquire(collection);
        uint32_t segments =
            version->segment_count + checkpoint_new_segments(checkpoint, collection);
        version_release(version);
        checkpoint->versions[i] =
            version_create(&checkpoint->db->memory, COMMIT_MAX_MEMTABLES, segments);
        if (checkpoint->versions[i] == NULL)
            return OMENDB_NOMEM;
    }
    return OMENDB_OK;
}

static void checkpoint_install_collection(struct checkpoint *checkpoint, size_t index)
{
    struct collection *collection = checkpoint->collections[index];
    struct version *version = checkpoint->versions[index];
    const struct version *old = atomic_load(&collection->version);
    uint32_t at = 0;
    version->memtable_count = 0;
    for (uint32_t i = 0; i < old->memtable_count; i++) {
        assert(version->memtable_count <= COMMIT_MAX_MEMTABLES);
        if (!checkpoint_is_frozen(checkpoint, old->memtables[i]))
            version->memtables[version->memtable_count++] = memtable_reference(old->memtables[i]);
    }
    for (uint32_t i = 0; i < old->segment_count; i++)
        version->segments[at++] = segment_reference(old->segments[i]);
    for (size_t i = 0; i < checkpoint->item_count; i++) {
        struct checkpoint_item *item = &checkpoint->items[i];
        if (item->collection != collection || item->segment == NULL)
            continue;
        version->segments[at++] = item->segment;
        item->segment = NULL;
    }
    checkpoint->versions[index] = NULL;
    version_install(collection, version);
}

static void checkpoint_install(struct checkpoint *checkpoint, size_t collections)
{
    platform_mutex_lock(&checkpoint->db->commit_mutex);
    for (size_t i = 0; i < collections; i++) {
        if (checkpoint->versions[i] != NULL)
            checkpoint_install_collection(checkpoint, i);
    }
    platform_mutex_unlock(&checkpoint->db->commit_mutex);
    for (size_t i = 0; i < collections; i++)
        work_notice_merge(checkpoint->collections[i]);
}

/* ------------------------------------------------------------------ collecting files */

static int checkpoint_is_retained(const omendb *db, uint64_t number)
{
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        if (db->retained[i] == number)
            return 1;
    }
    return 0;
}

/* A manifest that no reader holds any more is forgotten. */
static void checkpoint_release_manifests(omendb *db)
{
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        struct storage_file file = {0};
        char name[STORAGE_NAME_BYTES];
        if (db->retained[i] == 0)
            continue;
        storage_name(STORAGE_MANIFEST, db->retained[i], name);
        int code = storage_open(&db->storage, name, OMENDB_OPEN_READ | OMENDB_OPEN_WRITE, &file);
        if (code == OMENDB_OK) {
            code =
                db->storage.vfs->lock(db->storage.vfs->context, file.handle, OMENDB_LOCK_EXCLUSIVE);
            if (code == OMENDB_OK || code == OMENDB_UNSUPPORTED)
                storage_unlink(&db->storage, name);
            storage_close(&db->storage, &file);
        }
        /* Not being able to ask is no answer: a reader may hold it. */
        if (code == OMENDB_OK || code == OMENDB_UNSUPPORTED || code == OMENDB_NOTFOUND)
            db->retained[i] = 0;
    }
}

static int checkpoint_is_needed(const omendb *db, enum storage_kind kind, uint64_t number)
{
    if (kind == STORAGE_MANIFEST)
        return number == db->published.number || checkpoint_is_retained(db, number);
    for (size_t i = 0; i < DATABASE_RETAINED; i++) {
        /* A manifest names only files with smaller numbers than its own. */
        if (db->retained[i] > number)
            return 1;
    }
    if (kind == STORAGE_WAL)
        return number >= db->published.wal_number;
    for (size_t i = 0; i < DATABASE_UNPUBLISHED; i++) {
        if (db->unpublished[i] == number)
            return 1;
    }
    return checkpoint_find_file(&db->published, number) != NULL;
}

#define CHECKPOINT_DOOMED 32

struct checkpoint_doomed {
    omendb *db;
    size_t count;
    char names[CHECKPOINT_DOOMED][STORAGE_NAME_BYTES];
};

static int checkpoint_doom(void *context, const char *name)
{
    struct checkpoint_doomed *doomed = context;
    enum storage_kind kind;
    uint64_t number;
    if (!storage_parse_name(name, &kind, &number) || checkpoint_is_needed(doomed->db, kind, number))
        return 0;
    memcpy(doomed->names[doomed->count++], name, strlen(name) + 1);
    return doomed->count == CHECKPOINT_DOOMED;
}

OMENDB_INTERNAL void checkpoint_collect(omendb *db)
{
    struct checkpoint_doomed doomed;
    doomed.db = db;
    checkpoint_release_manifests(db);
    if (db->retained_overflow)
        return;
    do {
        doomed.count = 0;
        db->storage.vfs->list(db->storage.vfs->context, db->storage.directory, checkpoint_doom,
                              &doomed);
        size_t unlinked = 0;
        for (size_t i = 0; i < doomed.count; i++)
            unlinked += storage_unlink(&db->storage, doomed.names[i]) == OMENDB_OK;
        if (unlinked < doomed.count)
            break; /* what cannot be unlinked now is tried again after the next checkpoint */
    } while (doomed.count == CHECKPOINT_DOOMED);
}

/* ------------------------------------------------------------------ the whole */

static void checkpoint_destroy(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    size_t count = checkpoint->collection_capacity;
    segment_writer_destroy(checkpoint->pack);
    for (size_t i = 0; i < checkpoint->item_count; i++) {
        segment_release(checkpoint->items[i].segment);
        memtable_release(checkpoint->items[i].memtable);
        collection_release(checkpoint->items[i].collection);
    }
    for (size_t i = 0; checkpoint->opened != NULL && i < checkpoint->file_count; i++)
        shared_file_release(checkpoint->opened[i]);
    for (size_t i = 0; checkpoint->collections != NULL && i < count; i++) {
        version_release(checkpoint->versions[i]);
        collection_release(checkpoint->collections[i]);
    }
    memory_free(&db->memory, checkpoint->opened,
                checkpoint->file_capacity * sizeof *checkpoint->opened);
    memory_free(&db->memory, checkpoint->items,
                checkpoint->item_capacity * sizeof *checkpoint->items);
    memory_free(&db->memory, checkpoint->files,
                checkpoint->file_capacity * sizeof *checkpoint->files);
    memory_free(&db->memory, checkpoint->marked,
                checkpoint->marked_capacity * sizeof *checkpoint->marked);
    memory_free(&db->memory, checkpoint->collections, count * sizeof *checkpoint->collections);
    memory_free(&db->memory, checkpoint->versions, count * sizeof *checkpoint->versions);
    manifest_destroy(&db->memory, &checkpoint->manifest);
}

static int checkpoint_mark_all(struct checkpoint *checkpoint)
{
    int code = OMENDB_OK;
    for (size_t i = 0; i < checkpoint->manifest.collection_count && code == OMENDB_OK; i++) {
        struct version *version = version_acquire(checkpoint->collections[i]);
        for (uint32_t s = 0; s < version->segment_count && code == OMENDB_OK; s++)
            code = checkpoint_mark(checkpoint, version->segments[s]);
        version_release(version);
    }
    for (size_t i = 0; i < checkpoint->item_count && code == OMENDB_OK; i++) {
        if (checkpoint->items[i].segment != NULL)
            code = checkpoint_mark(checkpoint, checkpoint->items[i].segment);
    }
    return code;
}

/* From the list of collections to the published manifest. */
static int checkpoint_write_and_publish(struct checkpoint *checkpoint)
{
    int code = checkpoint_write_items(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_open_segments(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_mark_all(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_write_overlay(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_fill_manifest(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_prepare_versions(checkpoint);
    if (code == OMENDB_OK)
        code = checkpoint_publish(checkpoint);
    return code;
}

/* The old manifest stays in force; files that were finished go, so that trying again does not fill
 * the disk. */
static int checkpoint_give_up(struct checkpoint *checkpoint, int code)
{
    omendb *db = checkpoint->db;
    char text[ERROR_TEXT_BYTES];
    atomic_fetch_add(&db->log_bytes, checkpoint->log_bytes);
    checkpoint_poison_if_unsure(db, code);
    if (atomic_load(&db->poisoned))
        return code;
    memcpy(text, error_text(), strlen(error_text()) + 1);
    checkpoint_collect(db);
    return error_adopt(code, text);
}

/* maintenance_mutex. */
static int checkpoint_locked(omendb *db)
{
    struct checkpoint checkpoint = {.db = db};
    int code = checkpoint_freeze(&checkpoint);
    size_t collections = checkpoint.manifest.collection_count;
    if (code == OMENDB_OK) {
        code = checkpoint_write_and_publish(&checkpoint);
        if (code != OMENDB_OK)
            code = checkpoint_give_up(&checkpoint, code);
    }
    if (code == OMENDB_OK) {
        checkpoint_install(&checkpoint, collections);
        atomic_fetch_add(&db->checkpoints, 1);
        checkpoint_collect(db);
    }
    checkpoint_destroy(&checkpoint);
    return code;
}

OMENDB_INTERNAL int checkpoint_run(omendb *db, int force)
{
    int code = commit_check_writable(db);
    if (code != OMENDB_OK)
        return code;
    platform_mutex_lock(&db->maintenance_mutex);
    platform_mutex_lock(&db->commit_mutex);
    int wanted = force ? db->appended_commit > atomic_load(&db->checkpoint_commit) ||
                             (!db->log_published && !db->in_memory) || db->published.number == 0
                       : atomic_load(&db->log_bytes) >= db->wal_limit;
    platform_mutex_unlock(&db->commit_mutex);
    if (wanted) {
        code = checkpoint_locked(db);
        atomic_store(&db->checkpoint_failed, (uint32_t)code);
    }
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

/* The catalog of the published manifest, whose collections may have been dropped, or joined by
 * others, since. */
static int checkpoint_list_published(struct checkpoint *checkpoint)
{
    omendb *db = checkpoint->db;
    struct manifest *manifest = &checkpoint->manifest;
    const struct manifest *published = &db->published;
    size_t count = published->collection_count;
    manifest->next_collection = published->next_collection;
    manifest->wal_number = published->wal_number;
    checkpoint->commit = published->commit;
    if (count == 0)
        return OMENDB_OK;
    checkpoint->collections = memory_zalloc(&db->memory, count * sizeof *checkpoint->collections);
    checkpoint->versions = memory_zalloc(&db->memory, count * sizeof *checkpoint->versions);
    manifest->collections =
        memory_zalloc(&db->memory, memory_multiply(count, sizeof *manifest->collections));
    checkpoint->collection_capacity = count;
    if (checkpoint->collections == NULL || checkpoint->versions == NULL ||
        manifest->collections == NULL) {
        memory_free(&db->memory, checkpoint->collections, count * sizeof *checkpoint->collections);
        memory_free(&db->memory, manifest->collections, count * sizeof *manifest->collections);
        checkpoint->collections = NULL;
        manifest->collections = NULL;
        return OMENDB_NOMEM;
    }
    memcpy(manifest->collections, published->collections, count * sizeof *manifest->collections);
    manifest->collection_count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        manifest->collections[i].segments = NULL;
        manifest->collections[i].segment_count = 0;
        manifest->collections[i].calibration = NULL;
    }
    return OMENDB_OK;
}

/* A collection that was dropped since keeps the segments it had: the drop may be undone by a crash
 * under the weaker sync modes. */
static int checkpoint_keep_dropped(struct checkpoint *checkpoint, size_t index,
                                   uint32_t *file_capacity)
{
    omendb *db = checkpoint->db;
    const struct manifest_collection *from = &db->published.collections[index];
    struct manifest_collection *to = &checkpoint->manifest.collections[index];
    if (from->segment_count == 0)
        return OMENDB_OK;
    to->segments = memory_array(&db->memory, from->segment_count, sizeof *to->segments);
    if (to->segments == NULL)
        return OMENDB_NOMEM;
    memcpy(to->segments, from->segments, from->segment_count * sizeof *to->segments);
    to->segment_count = from->segment_count;
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < from->segment_count && code == OMENDB_OK; i++) {
        const struct manifest_file *file =
            checkpoint_find_file(&db->published, from->segments[i].file);
        const struct manifest_file *overlay =
            checkpoint_find_file(&db->published, from->segments[i].overlay_file);
        code = file == NULL ? OMENDB_OK
                            : checkpoint_add_file(db, &checkpoint->manifest, file, file_capacity);
        if (code == OMENDB_OK && overlay != NULL)
            code = checkpoint_add_file(db, &checkpoint->manifest, overlay, file_capacity);
    }
    return code;
}

OMENDB_INTERNAL int checkpoint_republish(omendb *db)
{
    struct checkpoint checkpoint = {.db = db};
    uint32_t file_capacity = 0;
    int code = checkpoint_list_published(&checkpoint);
    platform_mutex_lock(&db->commit_mutex);
    for (size_t i = 0; i < checkpoint.manifest.collection_count; i++) {
        struct collection *collection =
            catalog_by_id(&db->catalog, checkpoint.manifest.collections[i].id);
        checkpoint.collections[i] = collection == NULL ? NULL : collection_reference(collection);
    }
    platform_mutex_unlock(&db->commit_mutex);
    for (size_t i = 0; i < checkpoint.manifest.collection_count && code == OMENDB_OK; i++) {
        if (checkpoint.collections[i] == NULL)
            continue;
        struct version *version = version_acquire(checkpoint.collections[i]);
        for (uint32_t s = 0; s < version->segment_count && code == OMENDB_OK; s++)
            code = checkpoint_mark(&checkpoint, version->segments[s]);
        version_release(version);
    }
    if (code == OMENDB_OK)
        code = checkpoint_write_overlay(&checkpoint);
    for (size_t i = 0; i < checkpoint.manifest.collection_count && code == OMENDB_OK; i++) {
        code = checkpoint.collections[i] == NULL
                   ? checkpoint_keep_dropped(&checkpoint, i, &file_capacity)
                   : checkpoint_enter_collection(&checkpoint, i, &file_capacity);
    }
    code = checkpoint_trim_files(&checkpoint, file_capacity, code);
    if (code == OMENDB_OK)
        code = checkpoint_publish(&checkpoint);
    checkpoint_destroy(&checkpoint);
    if (code == OMENDB_OK)
        checkpoint_collect(db);
    return checkpoint_poison_if_unsure(db, code);
}

#undef CHECKPOINT_PACK_BYTES
#undef CHECKPOINT_DOOMED

/* ==============================================================================================
 * calibrate.c
 * ============================================================================================== */

/* calibrate.c: measuring recall by effort. calibration.c has the curves.
 *
 * In a merge. Rows that are in a graph are found too easily by their own vectors, as links lead to
 * them: on SIFT an ef at which unseen queries find 0.953 finds 0.995 for stored rows. So a merge
 * holds some of the rows that it inserts back, spread over all of them, asks for their neighbours
 * while they are not in the graph, and inserts them last. The truth is a scan of all other rows in
 * blocks: each run of rows is read once for several queries. The walks are
 * those of searches.
 *
 * Cost. The scan takes one distance a row and query, inserting a row some thousand: 500 queries are
 * a few percent of building the graph. A merge that inserts few rows into a large graph asks fewer.
 * Walks go up the ladder until next to nothing is missed. For k = 100 a quarter of the queries is
 * enough: of a hundred neighbours the found share varies less from query to query.
 *
 * omendb_calibrate asks the caller's queries, by complete searches of the newest state.
 *
 * Rejected: truth from a walk with a large ef (what no walk finds would not count as missed);
 * queries made by mixing two rows (they lie inside of the data, and are easier than real ones). */

#define CALIBRATE_QUERIES 500 /* at most, in a merge */
#define CALIBRATE_LEAST   200 /* with fewer the bound would say little */
#define CALIBRATE_SHARE   20  /* of the rows inserted at most one in so many is asked */
#define CALIBRATE_BLOCK   16  /* queries that share a scan */
#define CALIBRATE_RUN     32  /* rows compared at a time */
#define CALIBRATE_GRAIN   8   /* queries a parallel step of walks */
#define CALIBRATE_SKIP    4   /* for the largest k one query in so many is asked */
#define CALIBRATE_CHUNK   64  /* queries of omendb_calibrate between looks at `progress` */
#define CALIBRATE_LOOK    (UINT32_C(1) << 16) /* rows scanned between looks at `stopping` */

/* A distance that was computed by another kernel may differ in the last bits. */
static float calibrate_bound(float distance)
{
    return distance + fabsf(distance) * 1e-5f;
}

/* ------------------------------------------------------------------ held rows of a merge */

struct calibrate_task {
    omendb *db;
    struct collection *collection;
    const struct search_target *target;
    const struct calibrate_held *held;
    uint32_t rows;
    struct calibration_entry rung;
    uint32_t skip, count; /* of this rung: one held row in `skip` is asked */
    float *truth;         /* of each query: the CALIBRATION_LARGEST_K least distances, ascending */
    float *recalls;
};

OMENDB_INTERNAL void calibrate_choose(uint32_t first, uint32_t rows, struct calibrate_held *held)
{
    uint32_t inserted = rows - first;
    uint64_t count = (uint64_t)CALIBRATE_QUERIES * inserted / (rows == 0 ? 1 : rows);
    count = count > CALIBRATE_LEAST ? count : CALIBRATE_LEAST;
    count = count < inserted / CALIBRATE_SHARE ? count : inserted / CALIBRATE_SHARE;
    *held = (struct calibrate_held){first, 1, 0};
    if (count < CALIBRATE_LEAST)
        return;
    held->count = (uint32_t)count;
    held->step = inserted / held->count;
}

static const uint8_t *calibrate_query(const struct calibrate_task *task, uint32_t index)
{
    return rows_at(&task->target->full.vectors, task->held->first + index * task->held->step);
}

/* `nearest` ascends and is full of infinities at first. */
static void calibrate_keep(float *nearest, float distance)
{
    size_t at = CALIBRATION_LARGEST_K - 1;
    for (; at > 0 && nearest[at - 1] > distance; at--)
        nearest[at] = nearest[at - 1];
    nearest[at] = distance;
}

static void calibrate_scan_run(const struct calibrate_task *task, uint32_t first_query,
                               uint32_t last_query, const void *const *vectors, size_t count)
{
    const struct graph_view *view = &task->target->full;
    float distances[CALIBRATE_RUN];
    for (uint32_t query = first_query; query < last_query; query++) {
        float *nearest = task->truth + (size_t)query * CALIBRATION_LARGEST_K;
        view->kernel->many(calibrate_query(task, query), vectors, count, view->dim, distances);
        for (size_t i = 0; i < count; i++) {
            if (distances[i] < nearest[CALIBRATION_LARGEST_K - 1])
                calibrate_keep(nearest, distances[i]);
        }
    }
}

/* The truth of one block of queries. */
static int calibrate_scan(void *context, uint64_t index)
{
    const struct calibrate_task *task = context;
    uint32_t first = (uint32_t)index * CALIBRATE_BLOCK, count = task->held->count;
    uint32_t last = count - first < CALIBRATE_BLOCK ? count : first + CALIBRATE_BLOCK;
    const void *vectors[CALIBRATE_RUN];
    for (size_t i = (size_t)first * CALIBRATION_LARGEST_K; i < (size_t)last * CALIBRATION_LARGEST_K;
         i++)
        task->truth[i] = INFINITY;
    for (uint32_t row = 0; row < task->rows;) {
        size_t run = 0;
        if (row % CALIBRATE_LOOK == 0 && atomic_load(&task->db->stopping))
            return error_set(OMENDB_DONE, "the database is closing");
        uint32_t end = task->rows - row < CALIBRATE_RUN ? task->rows : row + CALIBRATE_RUN;
        for (; row < end; row++) {
            if (!calibrate_is_held(task->held, row))
                vectors[run++] = rows_at(&task->target->full.vectors, row);
        }
        calibrate_scan_run(task, first, last, vectors, run);
    }
    return OMENDB_OK;
}

/* How many of the k nearest were found. */
static float calibrate_score(const struct graph_hit *hits, size_t count, const float *nearest,
                             size_t k)
{
    float bound = calibrate_bound(nearest[k - 1]);
    size_t found = 0;
    for (size_t i = 0; i < count && i < k; i++)
        found += hits[i].distance <= bound;
    return (float)found / (float)k;
}

static int calibrate_walk_one(const struct calibrate_task *task, uint32_t index,
                              struct scratch *scratch)
{
    const struct graph_effort effort = {
        .ef = task->rung.ef, .k = task->rung.k, .stretch = task->rung.stretch};
    uint32_t query = index * task->skip;
    size_t hits;
    int code = search_walk_target(task->collection, task->target, calibrate_query(task, query),
                                  scratch, &effort, &hits);
    if (code == OMENDB_OK)
        task->recalls[index] = calibrate_score(
            scratch->hits, hits, task->truth + (size_t)query * CALIBRATION_LARGEST_K, effort.k);
    return code;
}

/* The walks of a few queries with one effort. */
static int calibrate_walk(void *context, uint64_t index)
{
    const struct calibrate_task *task = context;
    uint32_t first = (uint32_t)index * CALIBRATE_GRAIN;
    uint32_t last = task->count - first < CALIBRATE_GRAIN ? task->count : first + CALIBRATE_GRAIN;
    if (atomic_load(&task->db->stopping))
        return error_set(OMENDB_DONE, "the database is closing");
    struct scratch *scratch = scratch_take(task->db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    int code = scratch_reserve(scratch, task->rung.ef + 1, 0, 0);
    for (uint32_t i = first; i < last && code == OMENDB_OK; i++)
        code = calibrate_walk_one(task, i, scratch);
    scratch_give(task->db, scratch);
    return code;
}

OMENDB_INTERNAL int calibrate_held_rows(struct collection *collection,
                                        const struct search_target *target, uint32_t rows,
                                        const struct calibrate_held *held,
                                        struct calibration *calibration)
{
    omendb *db = collection->db;
    struct calibrate_task task = {
        .db = db, .collection = collection, .target = target, .held = held, .rows = rows};
    size_t floats = (size_t)held->count * (CALIBRATION_LARGEST_K + 1);
    *calibration = (struct calibration){.rows = rows};
    task.truth = memory_array(&db->memory, floats, sizeof *task.truth);
    if (task.truth == NULL)
        return OMENDB_OK;
    task.recalls = task.truth + (size_t)held->count * CALIBRATION_LARGEST_K;
    int code = work_parallel(db, (held->count + CALIBRATE_BLOCK - 1) / CALIBRATE_BLOCK,
                             calibrate_scan, &task);
    for (size_t i = 0; code == OMENDB_OK && calibration_rung(i, &task.rung); i++) {
        if (calibration_is_enough(calibration, task.rung.k))
            continue;
        task.skip = task.rung.k == CALIBRATION_LARGEST_K ? CALIBRATE_SKIP : 1;
        task.count = held->count / task.skip;
        code = work_parallel(db, (task.count + CALIBRATE_GRAIN - 1) / CALIBRATE_GRAIN,
                             calibrate_walk, &task);
        if (code == OMENDB_OK)
            calibration_add(calibration, &task.rung, task.recalls, task.count);
    }
    memory_free(&db->memory, task.truth, floats * sizeof *task.truth);
    return code;
}

/* ------------------------------------------------------------------ the caller's queries */

struct calibrate_asked {
    struct search_request request; /* but for the vector */
    const uint8_t *queries;
    uint32_t count;
    uint32_t first;        /* of the chunk under way */
    uint32_t largest_rows; /* of a graph */
    struct calibration_entry rung;
    float *truth; /* CALIBRATION_LARGEST_K a query, ascending; infinities where there are fewer */
    float *recalls;
    uint32_t *walked; /* of each query: whether the largest graph was walked */
    struct calibration curve;
    int (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
    uint64_t done, total;
};

static int calibrate_ask(const struct calibrate_asked *asked, uint32_t query, size_t k, size_t ef,
                         float *distances, size_t *found, omendb_explain *explain)
{
    uint64_t ids[CALIBRATION_LARGEST_K];
    struct search_request request = asked->request;
    struct collection *collection = request.collection;
    struct scratch *scratch = scratch_take(collection->db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    request.vector = asked->queries + (size_t)query * collection->vector_bytes;
    request.k = k;
    request.ef = ef == 0 ? k : ef;
    request.exact = ef == 0;
    int code = search_run(&request, scratch, ids, distances, found, explain);
    scratch_give(collection->db, scratch);
    return code;
}

static int calibrate_ask_exactly(void *context, uint64_t index)
{
    struct calibrate_asked *asked = context;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint32_t query = asked->first + (uint32_t)index;
    float *nearest = asked->truth + (size_t)query * CALIBRATION_LARGEST_K;
    size_t found;
    int code = calibrate_ask(asked, query, CALIBRATION_LARGEST_K, 0, nearest, &found, &explain);
    for (size_t i = found; code == OMENDB_OK && i < CALIBRATION_LARGEST_K; i++)
        nearest[i] = INFINITY;
    return code;
}

static int calibrate_ask_rung(void *context, uint64_t index)
{
    struct calibrate_asked *asked = context;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint32_t query = asked->first + (uint32_t)index;
    const float *nearest = asked->truth + (size_t)query * CALIBRATION_LARGEST_K;
    float distances[CALIBRATION_LARGEST_K];
    size_t found, k = asked->rung.k, good = 0, there = 0;
    int code = calibrate_ask(asked, query, k, asked->rung.ef, distances, &found, &explain);
    if (code != OMENDB_OK)
        return code;
    while (there < k && nearest[there] < INFINITY)
        there++;
    float bound = there == 0 ? 0.0f : calibrate_bound(nearest[there - 1]);
    for (size_t i = 0; i < found && i < there; i++)
        good += distances[i] <= bound;
    asked->recalls[query] = there == 0 ? 1.0f : (float)good / (float)there;
    asked->walked[query] = explain.graph_rows >= asked->largest_rows;
    return OMENDB_OK;
}

/* All queries, in chunks, with a look at `progress` after each. */
static int calibrate_ask_all(struct calibrate_asked *asked,
                             int (*ask)(void *context, uint64_t index))
{
    omendb *db = asked->request.collection->db;
    int code = OMENDB_OK;
    for (asked->first = 0; asked->first < asked->count && code == OMENDB_OK;
         asked->first += CALIBRATE_CHUNK) {
        uint32_t left = asked->count - asked->first;
        code = work_parallel(db, left < CALIBRATE_CHUNK ? left : CALIBRATE_CHUNK, ask, asked);
        asked->done++;
        if (code == OMENDB_OK && asked->progress != NULL &&
            asked->progress(asked->context, asked->done, asked->total) != 0)
            code = error_set(OMENDB_DONE, "stopped by the progress function");
    }
    return code;
}

/* Whether the graph that matters was walked for every query, not scanned: only then has the effort
 * been measured. */
static int calibrate_was_walked(const struct calibrate_asked *asked)
{
    for (uint32_t i = 0; i < asked->count; i++) {
        if (!asked->walked[i])
            return 0;
    }
    return 1;
}

static int calibrate_measure(struct calibrate_asked *asked)
{
    uint64_t chunks = (asked->count + CALIBRATE_CHUNK - 1) / CALIBRATE_CHUNK, rungs = 0;
    uint32_t scanned_k = 0; /* the collection is too small to be walked for this k so widely */
    while (calibration_rung((size_t)rungs, &asked->rung))
        rungs++;
    asked->total = chunks * (rungs + 1);
    int code = calibrate_ask_all(asked, calibrate_ask_exactly);
    for (size_t i = 0; code == OMENDB_OK && calibration_rung(i, &asked->rung); i++) {
        if (scanned_k == asked->rung.k || calibration_is_enough(&asked->curve, asked->rung.k)) {
            asked->done += chunks;
            continue;
        }
        code = calibrate_ask_all(asked, calibrate_ask_rung);
        if (code == OMENDB_OK && calibrate_was_walked(asked))
            calibration_add(&asked->curve, &asked->rung, asked->recalls, asked->count);
        else
            scanned_k = asked->rung.k;
    }
    return code;
}

static void calibrate_begin(struct calibrate_asked *asked, const struct version *version)
{
    for (uint32_t i = 0; i < version->segment_count; i++) {
        uint32_t rows = version->segments[i]->info.indexed_rows;
        asked->largest_rows = rows > asked->largest_rows ? rows : asked->largest_rows;
    }
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        uint32_t rows = atomic_load(&version->memtables[i]->indexed);
        asked->largest_rows = rows > asked->largest_rows ? rows : asked->largest_rows;
    }
    uint64_t largest;
    asked->curve = (struct calibration){.rows = asked->largest_rows,
                                        .all_rows = search_total_rows(version, &largest)};
}

/* Puts a curve in front of the others and publishes it. When that fails the curve is in force all
 * the same, and the next checkpoint stores it. */
static int calibrate_install(struct collection *collection, const struct calibration *curve)
{
    omendb *db = collection->db;
    struct calibration *made = memory_alloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    *made = *curve;
    /* What is published again below is what the last manifest lists. */
    int code = work_checkpoint(db, 1);
    if (code == OMENDB_OK && atomic_load(&collection->dropped))
        code = error_set(OMENDB_DROPPED, "collection \"%s\" was dropped", collection->name);
    platform_mutex_lock(&db->maintenance_mutex);
    if (code == OMENDB_OK) {
        made->older = atomic_load(&collection->calibration);
        atomic_store_explicit(&collection->calibration, made, memory_order_release);
        memory_begin_maintenance();
        code = checkpoint_republish(db);
        memory_end_maintenance();
    } else {
        memory_free(&db->memory, made, sizeof *made);
    }
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

OMENDB_INTERNAL int
calibrate_collection(struct collection *collection, const uint8_t *queries, uint32_t count,
                     int (*progress)(void *context, uint64_t done, uint64_t total), void *context)
{
    struct memory *memory = &collection->db->memory;
    struct calibrate_asked asked = {
        .queries = queries, .count = count, .progress = progress, .context = context};
    struct version *version = version_acquire_newest(collection, &asked.request.commit);
    asked.request.collection = collection;
    asked.request.version = version;
    asked.request.excluded_id = OMENDB_ID_AUTO;
    asked.truth =
        memory_array(memory, memory_multiply(count, CALIBRATION_LARGEST_K), sizeof *asked.truth);
    asked.recalls = memory_array(memory, count, sizeof *asked.recalls);
    asked.walked = memory_array(memory, count, sizeof *asked.walked);
    calibrate_begin(&asked, version);
    int code = asked.truth == NULL || asked.recalls == NULL || asked.walked == NULL ? OMENDB_NOMEM
                                                                                    : OMENDB_OK;
    if (code == OMENDB_OK && asked.largest_rows != 0)
        code = calibrate_measure(&asked);
    version_release(version);
    memory_free(memory, asked.truth, (size_t)count * CALIBRATION_LARGEST_K * sizeof *asked.truth);
    memory_free(memory, asked.recalls, count * sizeof *asked.recalls);
    memory_free(memory, asked.walked, count * sizeof *asked.walked);
    if (code == OMENDB_OK && asked.curve.count != 0)
        code = calibrate_install(collection, &asked.curve);
    return code == OMENDB_DONE ? OMENDB_OK : code;
}

#undef CALIBRATE_QUERIES
#undef CALIBRATE_LEAST
#undef CALIBRATE_SHARE
#undef CALIBRATE_BLOCK
#undef CALIBRATE_RUN
#undef CALIBRATE_GRAIN
#undef CALIBRATE_SKIP
#undef CALIBRATE_CHUNK
#undef CALIBRATE_LOOK

/* ==============================================================================================
 * compact.c
 * ============================================================================================== */

/* compact.c: merging segments.
 *
 * Policy. Sort the segments of a collection by rows. Find the first one that is at most four times
 * as large as all smaller ones together: it and they become one. So each remaining one is more than
 * four times as large as the sum of what follows, which leaves at most log5(n) segments, never over
 * eight, and a row is written at most some five times a level. Otherwise a segment alone is
 * rewritten when a quarter of its rows can be dropped, when rows are not in its graph yet, or when
 * its pack is half dead.
 *
 * A merge keeps the graph of the input with the most linked rows, drops from it what no transaction
 * can see, relinks around the gaps, and inserts all other rows. It is accepted if its sampled
 * recall is as good as before and as at the last fresh build. Else, and where half of the rows are
 * new, the graph is built in bulk. omendb_optimize refines a kept graph in the end. Some of the new
 * rows come last, so that they can be asked as queries before (calibrate.c).
 *
 * What may be dropped: rows whose end is visible to every open transaction and lies at or before
 * the published checkpoint. A later delete may still be undone by a crash under the weaker sync
 * modes, so its row stays until the next checkpoint.
 *
 * Small outputs (under 4 MiB) of one run share a file. Installing holds commit_mutex for the replay
 * of tombstones that came meanwhile. */

#define COMPACT_MAX_SEGMENTS  8
#define COMPACT_GROWTH        4
#define COMPACT_MAX_INPUTS    64
#define COMPACT_SLICE         4096 /* rows between looks at `progress` and `stopping` */
#define COMPACT_GRAIN         16   /* rows a parallel step */
#define COMPACT_GATE_MIN_ROWS 1000
#define COMPACT_GATE_QUERIES  400
#define COMPACT_GATE_K        10
#define COMPACT_GATE_LOSS     0.005f
#define COMPACT_CURVE_GROWTH  5 /* a curve is measured anew once one row in so many is new */

struct compact_merge {
    struct collection *collection; /* the caller's reference */
    struct version *version;       /* referenced: keeps the inputs */
    struct segment *inputs[COMPACT_MAX_INPUTS];
    uint32_t *maps[COMPACT_MAX_INPUTS]; /* old row to new, GRAPH_NO_ROW: dropped */
    uint32_t input_count;
    uint32_t base;      /* input whose graph is kept; input_count: none */
    uint32_t base_rows; /* its kept linked rows, the first of the output */
    uint32_t rows;
    uint64_t *ids;
    uint64_t drop_limit;
    struct begin_array *begins;
    uint8_t *codes; /* of the output's rows, or NULL: the graph is built over the vectors */
    struct calibration calibration; /* of the output; count 0: none */
    struct part_info info;
    uint32_t part;
    int installed;
};

struct compact {
    omendb *db;
    int everything;
    struct compact_merge *merges;
    size_t merge_count;
    struct segment_writer *writer;
    uint64_t number;
    struct manifest_file file;
    int (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
};

/* ------------------------------------------------------------------ policy */

static uint64_t compact_drop_limit(omendb *db)
{
    uint64_t oldest = txn_oldest(db), checkpoint = atomic_load(&db->checkpoint_commit);
    return oldest < checkpoint ? oldest : checkpoint;
}

struct compact_droppable {
    uint64_t limit;
    uint32_t rows;
};

static int compact_count_droppable(void *context, uint32_t row, uint64_t end)
{
    struct compact_droppable *droppable = context;
    (void)row;
    droppable->rows += end <= droppable->limit;
    return 0;
}

static uint32_t compact_droppable_rows(const struct segment *segment, uint64_t limit)
{
    struct compact_droppable droppable = {limit, 0};
    if (atomic_load(&segment->tombstones->dead) != 0)
        tombstones_each(segment->tombstones, segment->info.rows, compact_count_droppable,
                        &droppable);
    return droppable.rows;
}

/* Whether a segment is worth rewriting alone. */
static int compact_is_stale(const struct collection *collection, struct segment *segment,
                            uint64_t limit)
{
    uint64_t unindexed =
        (uint64_t)(segment->info.rows - segment->info.indexed_rows) * collection->vector_bytes;
    uint32_t parts = segment->file->file->part_count;
    if (unindexed > (UINT64_C(64) << 10) ||
        unindexed * COMPACT_GROWTH >= collection->db->tail_limit)
        return unindexed != 0;
    if (parts > 1 && atomic_load(&segment->file->references) * 2 <= parts)
        return 1;
    uint32_t dead = atomic_load(&segment->tombstones->dead);
    if (dead == 0 || (uint64_t)dead * 4 < segment->info.rows ||
        limit <= atomic_load(&segment->not_stale_limit))
        return 0;
    if (compact_droppable_rows(segment, limit) * UINT64_C(4) >= segment->info.rows)
        return 1;
    atomic_store(&segment->not_stale_limit, limit);
    return 0;
}

static uint32_t compact_pick_everything(struct segment *const *sorted, uint32_t count,
                                        uint64_t limit)
{
    if (count == 1 && sorted[0]->info.indexed_rows == sorted[0]->info.rows &&
        compact_droppable_rows(sorted[0], limit) == 0)
        return 0;
    return count;
}

/* Puts what is to be merged first in `sorted` (room for COMPACT_MAX_INPUTS); returns how many. */
static uint32_t compact_pick(const struct collection *collection, const struct version *version,
                             int everything, struct segment **sorted)
{
    uint64_t limit = compact_drop_limit(collection->db), smaller = 0;
    uint32_t count =
        version->segment_count < COMPACT_MAX_INPUTS ? version->segment_count : COMPACT_MAX_INPUTS;
    if (count == 0)
        return 0;
    for (uint32_t i = 0; i < count; i++) { /* descending by rows */
        uint32_t at = i;
        for (; at > 0 && sorted[at - 1]->info.rows < version->segments[i]->info.rows; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = version->segments[i];
    }
    if (everything)
        return compact_pick_everything(sorted, count, limit);
    uint32_t first = count; /* the earliest that the rule takes */
    for (uint32_t i = count; i-- > 0;) {
        if (smaller != 0 && smaller * COMPACT_GROWTH >= sorted[i]->info.rows)
            first = i;
        smaller += sorted[i]->info.rows;
    }
    if (first == count && count > COMPACT_MAX_SEGMENTS)
        first = 1;
    if (first < count) {
        memmove(sorted, sorted + first, (count - first) * sizeof *sorted);
        return count - first;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!compact_is_stale(collection, sorted[i], limit))
            continue;
        sorted[0] = sorted[i];
        return 1;
    }
    return 0;
}

OMENDB_INTERNAL int compact_wanted(struct collection *collection)
{
    struct segment *sorted[COMPACT_MAX_INPUTS];
    struct version *version = version_acquire(collection);
    int wanted =
        !atomic_load(&collection->dropped) && compact_pick(collection, version, 0, sorted) != 0;
    version_release(version);
    return wanted;
}

/* ------------------------------------------------------------------ planning */

static int compact_keeps(const struct compact_merge *merge, const struct segment *segment,
                         uint32_t row)
{
    uint64_t end = tombstones_get(segment->tombstones, row);
    return end == 0 || end > merge->drop_limit;
}

static void compact_map_range(struct compact_merge *merge, uint32_t input, uint32_t first,
                              uint32_t last)
{
    for (uint32_t row = first; row < last; row++)
        merge->maps[input][row] =
            compact_keeps(merge, merge->inputs[input], row) ? merge->rows++ : GRAPH_NO_ROW;
}

/* Numbers the kept rows: the base's linked ones first, then its others, then the other inputs. */
static int compact_map(struct compact_merge *merge)
{
    struct memory *memory = &merge->collection->db->memory;
    uint64_t total = 0;
    merge->base = merge->input_count;
    for (uint32_t i = 0; i < merge->input_count; i++) {
        const struct part_info *info = &merge->inputs[i]->info;
        total += info->rows;
        if (info->indexed_rows != 0 &&
            (merge->base == merge->input_count ||
             info->indexed_rows > merge->inputs[merge->base]->info.indexed_rows))
            merge->base = i;
        merge->maps[i] = memory_array(memory, info->rows, sizeof **merge->maps);
        if (merge->maps[i] == NULL)
            return OMENDB_NOMEM;
    }
    if (total >= GRAPH_MAX_ROWS)
        return error_set(OMENDB_TOOBIG, "collection \"%s\": a segment of %llu rows; at most 2^31",
                         merge->collection->name, (unsigned long long)total);
    if (merge->base < merge->input_count) {
        const struct part_info *info = &merge->inputs[merge->base]->info;
        compact_map_range(merge, merge->base, 0, info->indexed_rows);
        merge->base_rows = merge->rows;
        compact_map_range(merge, merge->base, info->indexed_rows, info->rows);
    }
    for (uint32_t i = 0; i < merge->input_count; i++) {
        if (i != merge->base)
            compact_map_range(merge, i, 0, merge->inputs[i]->info.rows);
    }
    return OMENDB_OK;
}

static int compact_collect_ids(struct compact_merge *merge)
{
    struct memory *memory = &merge->collection->db->memory;
    merge->ids = memory_array(memory, merge->rows, sizeof *merge->ids);
    if (merge->ids == NULL)
        return OMENDB_NOMEM;
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < merge->input_count; i++) {
        for (uint32_t row = 0; row < merge->inputs[i]->info.rows && code == OMENDB_OK; row++) {
            if (merge->maps[i][row] != GRAPH_NO_ROW)
                code = segment_id(merge->inputs[i], row, &merge->ids[merge->maps[i][row]]);
        }
    }
    return code;
}

/* Begin commits are carried over while a transaction is open that is older than one of them. */
static int compact_collect_begins(struct compact_merge *merge)
{
    omendb *db = merge->collection->db;
    uint64_t oldest = txn_oldest(db), newest = 0;
    for (uint32_t i = 0; i < merge->input_count; i++) {
        const struct begin_array *begins = merge->inputs[i]->begins;
        if (begins != NULL && begins->newest > newest)
            newest = begins->newest;
    }
    if (newest <= oldest)
        return OMENDB_OK;
    merge->begins = begin_array_create(&db->memory, merge->rows);
    if (merge->begins == NULL)
        return OMENDB_NOMEM;
    merge->begins->newest = newest;
    for (uint32_t i = 0; i < merge->input_count; i++) {
        const struct begin_array *begins = merge->inputs[i]->begins;
        for (uint32_t row = 0; begins != NULL && row < begins->rows; row++) {
            if (merge->maps[i][row] != GRAPH_NO_ROW)
                merge->begins->begin[merge->maps[i][row]] = begins->begin[row];
        }
    }
    return OMENDB_OK;
}

static int compact_plan(struct compact_merge *merge, int everything)
{
    merge->version = version_acquire(merge->collection);
    merge->input_count = compact_pick(merge->collection, merge->version, everything, merge->inputs);
    if (merge->input_count == 0)
        return OMENDB_OK;
    merge->drop_limit = compact_drop_limit(merge->collection->db);
    int code = compact_map(merge);
    if (code == OMENDB_OK)
        code = compact_collect_ids(merge);
    if (code == OMENDB_OK)
        code = compact_collect_begins(merge);
    return code;
}

/* ------------------------------------------------------------------ vectors */

/* Appends the kept rows of [first, last), runs of neighbours at once. */
static int compact_write_range(struct segment_writer *writer, const struct compact_merge *merge,
                               uint32_t input, uint32_t first, uint32_t last)
{
    const struct segment *segment = merge->inputs[input];
    const uint32_t *map = merge->maps[input];
    size_t stride = segment->info.vector_stride;
    int code = OMENDB_OK;
    for (uint32_t row = first; row < last && code == OMENDB_OK;) {
        uint32_t end = row;
        while (end < last && map[end] != GRAPH_NO_ROW)
            end++;
        if (end > row) {
            code = blocks_touch(segment->full.file, segment->full.vectors_offset + row * stride,
                                (end - row) * stride);
            if (code == OMENDB_OK)
                code = segment_writer_append(writer, rows_at(&segment->full.vectors, row),
                                             (end - row) * stride);
        }
        row = end + 1;
    }
    /* Else a merge would hold input and output resident at once. */
    blocks_release(segment->full.file, segment->full.vectors_offset + first * (uint64_t)stride,
                   (uint64_t)(last - first) * stride);
    return code;
}

static int compact_write_vectors(struct segment_writer *writer, const struct compact_merge *merge)
{
    int code = segment_writer_begin_section(writer, SECTION_VECTORS);
    if (code == OMENDB_OK && merge->base < merge->input_count)
        code = compact_write_range(writer, merge, merge->base, 0,
                                   merge->inputs[merge->base]->info.rows);
    for (uint32_t i = 0; i < merge->input_count && code == OMENDB_OK; i++) {
        if (i != merge->base)
            code = compact_write_range(writer, merge, i, 0, merge->inputs[i]->info.rows);
    }
    return code;
}

/* ------------------------------------------------------------------ graph */

struct compact_build {
    struct compact *compact;
    const struct compact_merge *merge;
    struct graph *graph;
    const struct graph_view *source; /* adopting */
    uint32_t first, last;            /* of the slice */
    struct calibrate_held held;      /* rows to insert last */
};

static int compact_step(void *context, uint64_t index)
{
    struct compact_build *build = context;
    omendb *db = build->compact->db;
    if (atomic_load(&db->stopping))
        return error_set(OMENDB_DONE, "the database is closing");
    struct scratch *scratch = scratch_take(db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    uint32_t first = build->first + (uint32_t)index * COMPACT_GRAIN;
    uint32_t last = build->last - first < COMPACT_GRAIN ? build->last : first + COMPACT_GRAIN;
    int code = OMENDB_OK;
    if (build->source != NULL)
        code = graph_adopt_rows(build->graph, build->source, build->merge->maps[build->merge->base],
                                scratch->graph, first, last);
    for (uint32_t row = first; build->source == NULL && row < last && code == OMENDB_OK; row++)
        code = calibrate_is_held(&build->held, row)
                   ? OMENDB_OK
                   : graph_insert(build->graph, scratch->graph, row);
    scratch_give(db, scratch);
    return code;
}

static int compact_insert_held(void *context, uint64_t index)
{
    struct compact_build *build = context;
    omendb *db = build->compact->db;
    struct scratch *scratch = scratch_take(db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    int code = graph_insert(build->graph, scratch->graph,
                            build->held.first + (uint32_t)index * build->held.step);
    scratch_give(db, scratch);
    return code;
}

/* Steps over [first, last) in slices, with a look at `progress` after each. */
static int compact_build_rows(struct compact_build *build, uint32_t first, uint32_t last)
{
    struct compact *compact = build->compact;
    int code = OMENDB_OK;
    for (uint32_t at = first; at < last && code == OMENDB_OK;) {
        build->first = at;
        build->last = last - at < COMPACT_SLICE ? last : at + COMPACT_SLICE;
        uint64_t steps = (build->last - at + COMPACT_GRAIN - 1) / COMPACT_GRAIN;
        code = work_parallel(compact->db, steps, compact_step, build);
        at = build->last;
        if (build->source == NULL) {
            atomic_store(&compact->db->merge_rows, build->merge->rows);
            atomic_store(&compact->db->merge_done, at);
        }
        if (code == OMENDB_OK && build->source == NULL && compact->progress != NULL &&
            compact->progress(compact->context, at, build->merge->rows) != 0)
            code = error_set(OMENDB_DONE, "stopped by the progress function");
    }
    return code;
}

static int compact_adopt(struct compact_build *build)
{
    const struct compact_merge *merge = build->merge;
    const struct graph_view *source = hot_view(merge->inputs[merge->base]);
    const uint32_t *map = merge->maps[merge->base];
    int code = graph_adopt_begin(build->graph, source, map, merge->base_rows);
    build->source = source;
    if (code == OMENDB_OK)
        code = compact_build_rows(build, 0, source->count);
    if (code == OMENDB_OK)
        code = graph_adopt_end(build->graph);
    build->source = NULL;
    return code;
}

static struct search_target compact_target(const struct compact_merge *merge,
                                           const struct rows_view *vectors,
                                           const struct graph *graph)
{
    struct search_target target = {.codes_are_exact =
                                       (merge->info.flags & SEGMENT_CODES_EXACT) != 0};
    graph_get_view(graph, &target.walk);
    target.full = target.walk;
    target.full.vectors = *vectors;
    target.full.kernel = merge->collection->kernel;
    if (merge->codes != NULL)
        target.codes = checkpoint_code_format(merge->collection, &merge->info);
    return target;
}

/* The base's curve, or NULL. */
static const struct calibration *compact_base_curve(const struct compact_merge *merge)
{
    return merge->base == merge->input_count ? NULL : merge->inputs[merge->base]->calibration;
}

/* Measures the output's curve, or takes the base's over. A curve that was measured on nearly as
 * many rows is good enough, if the graph was not built anew; one is kept until they have doubled.
 */
static int compact_calibrate(struct compact_build *build, struct compact_merge *merge,
                             const struct rows_view *vectors)
{
    const struct calibration *base = compact_base_curve(merge);
    if (build->held.count != 0) {
        struct search_target target = compact_target(merge, vectors, build->graph);
        int code = calibrate_held_rows(merge->collection, &target, merge->rows, &build->held,
                                       &merge->calibration);
        return code == OMENDB_OK ? work_parallel(build->compact->db, build->held.count,
                                                 compact_insert_held, build)
                                 : code;
    }
    if (base != NULL && merge->rows / 2 <= base->rows)
        merge->calibration = *base;
    return OMENDB_OK;
}

static int compact_repair(const struct compact_build *build)
{
    struct scratch *scratch = scratch_take(build->compact->db);
    int code = scratch == NULL ? OMENDB_NOMEM
                               : graph_repair(build->graph, scratch->graph, build->merge->rows);
    scratch_give(build->compact->db, scratch);
    return code;
}

static int compact_insert(struct compact_build *build, struct compact_merge *merge,
                          const struct rows_view *vectors, uint32_t first)
{
    const struct calibration *base = first == 0 ? NULL : compact_base_curve(merge);
    int code = graph_reserve(build->graph, build->merge->rows);
    if (code != OMENDB_OK)
        return code;
    graph_set_count(build->graph, build->merge->rows);
    if (base == NULL || merge->rows - merge->rows / COMPACT_CURVE_GROWTH > base->rows)
        calibrate_choose(first, merge->rows, &build->held);
    code = compact_build_rows(build, first, build->merge->rows);
    if (code == OMENDB_OK)
        code = compact_calibrate(build, merge, vectors);
    return code == OMENDB_OK ? compact_repair(build) : code;
}

static int compact_run_parallel(void *runner, uint64_t count,
                                int (*fn)(void *context, uint64_t index), void *context)
{
    return work_parallel(runner, count, fn, context);
}

static int compact_bulk_progress(void *context, uint64_t done, uint64_t total)
{
    const struct compact_build *build = context;
    struct compact *compact = build->compact;
    uint64_t rows = build->merge->rows,
             at = total == 0 ? 0 : (uint64_t)((double)rows * (double)done / (double)total);
    if (atomic_load(&compact->db->stopping))
        return error_set(OMENDB_DONE, "the database is closing");
    atomic_store(&compact->db->merge_rows, rows);
    atomic_store(&compact->db->merge_done, at);
    if (compact->progress != NULL && compact->progress(compact->context, at, rows) != 0)
        return error_set(OMENDB_DONE, "stopped by the progress function");
    return 0;
}

static struct graph_bulk_terms compact_bulk_terms(struct compact_build *build)
{
    return (struct graph_bulk_terms){compact_run_parallel, build->compact->db,
                                     compact_bulk_progress, build};
}

/* All rows at once, but for the held ones, which are the last: those that came last. */
static int compact_bulk(struct compact_build *build, struct compact_merge *merge,
                        const struct rows_view *vectors)
{
    struct graph_bulk_terms terms = compact_bulk_terms(build);
    int code = graph_reserve(build->graph, merge->rows);
    if (code != OMENDB_OK)
        return code;
    calibrate_choose(0, merge->rows, &build->held);
    build->held.first = merge->rows - build->held.count;
    build->held.step = 1;
    graph_set_count(build->graph, build->held.first);
    code = graph_bulk(build->graph, &terms);
    if (code == OMENDB_OK) {
        graph_set_count(build->graph, merge->rows);
        code = compact_calibrate(build, merge, vectors);
    }
    return code == OMENDB_OK ? compact_repair(build) : code;
}

/* ------------------------------------------------------------------ recall gate */

/* Compares walks of two graphs over the same live rows, on the same queries. Truth is the best of
 * what both find with eight times the effort: an exact scan would cost more than the merge, and the
 * comparison needs only what either could have found. */
struct compact_gate {
    const struct compact_merge *merge;
    const struct rows_view *vectors; /* of new rows */
    struct graph_view fresh;         /* the merged graph, in new rows */
    const struct segment *old;       /* the input, in old rows, or NULL */
    struct graph_filter old_filter;
    struct scratch *scratch;
    struct graph_hit *hits; /* four lists of eight times ef */
    float *parents;         /* two f32 vectors */
    uint8_t *query;
    uint64_t random;
    size_t ef;
    double fresh_recall, old_recall;
    uint32_t queries;
};

static int compact_gate_visible(const void *context, uint32_t row)
{
    const struct compact_merge *merge = context;
    return merge->maps[merge->base][row] != GRAPH_NO_ROW;
}

/* A query between a row and one of its neighbours: near the data, but not a stored row, which would
 * be found too easily. */
static int compact_gate_query(struct compact_gate *gate)
{
    const struct scalar_format *format = &gate->merge->collection->format;
    const char *reason;
    size_t position, dim = format->dim;
    gate->random = idmap_mix(gate->random + 1);
    uint32_t row = (uint32_t)(gate->random % gate->fresh.count);
    const uint32_t *links = (const uint32_t *)(const void *)rows_at(&gate->fresh.links, row);
    uint32_t neighbour = links[(gate->random >> 40) % gate->fresh.links_per_row];
    neighbour = neighbour < gate->fresh.count ? neighbour : row;
    memcpy(gate->query, rows_at(gate->vectors, row), gate->merge->collection->vector_bytes);
    if (format->scalar == OMENDB_B1)
        return OMENDB_OK;
    int code = scalar_export(format, rows_at(gate->vectors, row), OMENDB_F32, gate->parents);
    if (code == OMENDB_OK)
        code = scalar_export(format, rows_at(gate->vectors, neighbour), OMENDB_F32,
                             gate->parents + dim);
    for (size_t i = 0; i < dim && code == OMENDB_OK; i++)
        gate->parents[i] = 0.5f * gate->parents[i] + 0.5f * gate->parents[dim + i];
    if (code != OMENDB_OK || scalar_convert(format, gate->parents, OMENDB_F32, gate->query, &reason,
                                            &position) != OMENDB_OK)
        memcpy(gate->query, rows_at(gate->vectors, row), gate->merge->collection->vector_bytes);
    return OMENDB_OK;
}

static struct code_format compact_gate_codes(const struct compact_gate *gate, int of_old)
{
    if (of_old)
        return gate->old->codes;
    return checkpoint_code_format(gate->merge->collection, &gate->merge->info);
}

/* Rows of `hits` become new ones, distances those of the vectors: the two graphs may be walked over
 * different codes. */
static void compact_gate_settle(const struct compact_gate *gate, int of_old, struct graph_hit *hits,
                                size_t count)
{
    const struct collection *collection = gate->merge->collection;
    for (size_t i = 0; i < count; i++) {
        struct graph_hit hit = hits[i];
        size_t at = i;
        if (of_old)
            hit.row = gate->merge->maps[gate->merge->base][hit.row];
        hit.distance = collection->kernel->pair(gate->query, rows_at(gate->vectors, hit.row),
                                                collection->schema.dim);
        for (; at > 0 && (hits[at - 1].distance > hit.distance ||
                          (hits[at - 1].distance == hit.distance && hits[at - 1].row > hit.row));
             at--)
            hits[at] = hits[at - 1];
        hits[at] = hit;
    }
}

/* A walk of one of the graphs; hits in new rows. */
static int compact_gate_walk(struct compact_gate *gate, int of_old, size_t ef,
                             struct graph_hit *hits, size_t *count)
{
    const struct graph_view *view = of_old ? hot_view(gate->old) : &gate->fresh;
    const struct graph_effort effort = {.ef = ef, .k = ef};
    struct code_format codes = compact_gate_codes(gate, of_old);
    const uint8_t *query = gate->query;
    int code = OMENDB_OK;
    if (codes.step != 0.0f) {
        code = scratch_reserve_code(gate->scratch, view->vectors.stride);
        if (code == OMENDB_OK)
            (void)codes_encode_query(&codes, gate->query, gate->scratch->code);
        query = gate->scratch->code;
    }
    if (code == OMENDB_OK)
        code = graph_search(view, gate->scratch->graph, query, &effort,
                            of_old ? &gate->old_filter : NULL, hits, count, NULL);
    if (code == OMENDB_OK)
        compact_gate_settle(gate, of_old, hits, *count);
    return code;
}

/* How many of the first k of `hits` are as near as the k-th of the truth. */
static double compact_gate_score(const struct graph_hit *hits, size_t count, float bound, size_t k)
{
    size_t good = 0;
    for (size_t i = 0; i < count && i < k; i++)
        good += hits[i].distance <= bound;
    return (double)good / (double)k;
}

/* Distance of the k-th nearest in two ascending lists together; a row may be in both. */
static float compact_gate_bound(const struct graph_hit *a, size_t a_count,
                                const struct graph_hit *b, size_t b_count, size_t k)
{
    size_t i = 0, j = 0;
    float bound = -INFINITY;
    for (size_t taken = 0; taken < k && (i < a_count || j < b_count); taken++) {
        if (i < a_count && j < b_count && a[i].row == b[j].row) {
            bound = a[i].distance;
            i++;
            j++;
        } else if (j == b_count || (i < a_count && a[i].distance <= b[j].distance)) {
            bound = a[i++].distance;
        } else {
            bound = b[j++].distance;
        }
    }
    return bound;
}

static int compact_gate_ask(struct compact_gate *gate)
{
    size_t deep = gate->ef * 8, counts[4] = {0, 0, 0, 0};
    struct graph_hit *lists[4] = {gate->hits, gate->hits + deep, gate->hits + 2 * deep,
                                  gate->hits + 3 * deep};
    int code = compact_gate_query(gate);
    if (code == OMENDB_OK)
        code = compact_gate_walk(gate, 0, deep, lists[0], &counts[0]);
    if (code == OMENDB_OK)
        code = compact_gate_walk(gate, 0, gate->ef, lists[1], &counts[1]);
    if (code == OMENDB_OK && gate->old != NULL)
        code = compact_gate_walk(gate, 1, deep, lists[2], &counts[2]);
    if (code == OMENDB_OK && gate->old != NULL)
        code = compact_gate_walk(gate, 1, gate->ef, lists[3], &counts[3]);
    if (code != OMENDB_OK)
        return code;
    float bound = compact_gate_bound(lists[0], counts[0], lists[2], counts[2], COMPACT_GATE_K);
    gate->fresh_recall += compact_gate_score(lists[1], counts[1], bound, COMPACT_GATE_K);
    gate->old_recall += compact_gate_score(lists[3], counts[3], bound, COMPACT_GATE_K);
    gate->queries++;
    return OMENDB_OK;
}

static int compact_gate_run(struct compact_gate *gate)
{
    struct collection *collection = gate->merge->collection;
    omendb *db = collection->db;
    size_t hit_bytes = gate->ef * 8 * 4 * sizeof *gate->hits,
           vector_bytes = collection->schema.dim * 2 * sizeof(float);
    gate->scratch = scratch_take(db);
    gate->hits = memory_alloc(&db->memory, hit_bytes);
    gate->parents = memory_alloc(&db->memory, vector_bytes);
    gate->query = memory_alloc(&db->memory, collection->vector_bytes);
    int code =
        gate->scratch == NULL || gate->hits == NULL || gate->parents == NULL || gate->query == NULL
            ? OMENDB_NOMEM
            : OMENDB_OK;
    for (uint32_t i = 0; i < COMPACT_GATE_QUERIES && code == OMENDB_OK; i++)
        code = compact_gate_ask(gate);
    if (code == OMENDB_OK) {
        gate->fresh_recall /= gate->queries;
        gate->old_recall /= gate->queries;
    }
    memory_free(&db->memory, gate->hits, hit_bytes);
    memory_free(&db->memory, gate->parents, vector_bytes);
    memory_free(&db->memory, gate->query, collection->vector_bytes);
    scratch_give(db, gate->scratch);
    return code;
}

static void compact_gate_init(struct compact_gate *gate, const struct compact_merge *merge,
                              const struct rows_view *vectors, const struct graph *graph)
{
    memset(gate, 0, sizeof *gate);
    gate->merge = merge;
    gate->vectors = vectors;
    gate->ef = merge->collection->schema.ef < COMPACT_GATE_K ? COMPACT_GATE_K
                                                             : merge->collection->schema.ef;
    gate->ef = gate->ef < 1000 ? gate->ef : 1000;
    gate->random = merge->collection->schema.seed;
    graph_get_view(graph, &gate->fresh);
}

/* Whether the relinked graph finds what its source found, and what a fresh build found when there
 * was one. */
static int compact_gate_passes(const struct compact_merge *merge, const struct rows_view *vectors,
                               const struct graph *graph, int *passes)
{
    struct compact_gate gate;
    const struct segment *base = merge->inputs[merge->base];
    *passes = 1;
    if (merge->base_rows < COMPACT_GATE_MIN_ROWS || merge->base_rows == base->info.indexed_rows)
        return OMENDB_OK;
    compact_gate_init(&gate, merge, vectors, graph);
    gate.old = base;
    gate.old_filter =
        (struct graph_filter){base->info.indexed_rows, GRAPH_NO_ROW, compact_gate_visible, merge};
    int code = compact_gate_run(&gate);
    float fresh = (float)gate.fresh_recall;
    *passes = fresh >= (float)gate.old_recall - COMPACT_GATE_LOSS &&
              fresh >= base->info.reference_recall - COMPACT_GATE_LOSS;
    return code;
}

/* The mark for later merges: taken from a build without drops, carried over by merges until the
 * collection has doubled. */
static int compact_set_reference(struct compact_merge *merge, const struct rows_view *vectors,
                                 const struct graph *graph, int fresh)
{
    struct compact_gate gate;
    const struct part_info *base =
        fresh || merge->base == merge->input_count ? NULL : &merge->inputs[merge->base]->info;
    if (merge->rows < COMPACT_GATE_MIN_ROWS)
        return OMENDB_OK;
    if (base != NULL && base->reference_recall > 0.0f && merge->rows / 2 <= base->reference_rows) {
        merge->info.reference_recall = base->reference_recall;
        merge->info.reference_rows = base->reference_rows;
        return OMENDB_OK;
    }
    compact_gate_init(&gate, merge, vectors, graph);
    int code = compact_gate_run(&gate);
    merge->info.reference_recall = (float)gate.fresh_recall;
    merge->info.reference_rows = merge->rows;
    return code;
}

/* ------------------------------------------------------------------ one output */

static int compact_create_graph(const struct compact_merge *merge, const struct rows_view *vectors,
                                struct graph **graph)
{
    struct graph_config config;
    struct rows_view codes = {&merge->codes, 31, UINT32_MAX >> 1,
                              codes_stride(merge->collection->schema.dim)};
    collection_graph_config(merge->collection, &config);
    if (merge->codes != NULL) {
        struct code_format format = checkpoint_code_format(merge->collection, &merge->info);
        config.vector_bytes = codes.stride;
        config.kernel = codes_kernel(&format);
        vectors = &codes;
    }
    return graph_create(&merge->collection->db->memory, &config, vectors, NULL, 0, graph);
}

/* In bulk, or one by one where there is no memory for that. */
static int compact_build_all(struct compact_build *build, struct compact_merge *merge,
                             const struct rows_view *vectors, struct graph **graph)
{
    int code = compact_bulk(build, merge, vectors);
    if (code != OMENDB_NOMEM)
        return code;
    graph_destroy(*graph);
    code = compact_create_graph(merge, vectors, graph);
    build->graph = *graph;
    return code == OMENDB_OK ? compact_insert(build, merge, vectors, 0) : code;
}

/* Builds the graph of all output rows over `vectors`. */
static int compact_build_graph(struct compact *compact, struct compact_merge *merge,
                               const struct rows_view *vectors, struct graph **graph)
{
    struct compact_build build = {.compact = compact, .merge = merge};
    /* Where half of the rows are new, building all of them in bulk takes no longer, and gives the
     * better graph. */
    int adopt = merge->base < merge->input_count && merge->base_rows > merge->rows / 2, passes = 1;
    int code = compact_create_graph(merge, vectors, graph);
    if (code == OMENDB_OK && adopt) {
        build.graph = *graph;
        code = compact_adopt(&build);
        if (code == OMENDB_OK)
            code = compact_gate_passes(merge, vectors, *graph, &passes);
        if (code == OMENDB_OK && !passes) {
            atomic_fetch_add(&compact->db->merges_rebuilt, 1);
            graph_destroy(*graph);
            adopt = 0;
            code = compact_create_graph(merge, vectors, graph);
        }
    }
    build.graph = *graph;
    if (code == OMENDB_OK && adopt)
        code = compact_insert(&build, merge, vectors, merge->base_rows);
    if (code == OMENDB_OK && adopt && compact->everything) {
        struct graph_bulk_terms terms = compact_bulk_terms(&build);
        code = graph_refine(*graph, &terms);
        if (code == OMENDB_NOMEM) /* it is as good as it was */
            code = compact_repair(&build);
    }
    if (code == OMENDB_OK && !adopt)
        code = compact_build_all(&build, merge, vectors, graph);
    if (code == OMENDB_OK)
        code = compact_set_reference(merge, vectors, *graph, !adopt);
    return code;
}

static size_t compact_code_bytes(const struct compact_merge *merge)
{
    return merge->rows * codes_stride(merge->collection->schema.dim);
}

static int compact_write_calibration(struct segment_writer *writer,
                                     const struct calibration *calibration)
{
    uint8_t bytes[FORMAT_CALIBRATION_BYTES + CALIBRATION_MAX_ENTRIES * FORMAT_CURVE_BYTES];
    if (calibration->count == 0)
        return OMENDB_OK;
    calibration_encode(calibration, bytes);
    int code = segment_writer_begin_section(writer, SECTION_CALIBRATION);
    return code == OMENDB_OK ? segment_writer_append(writer, bytes, calibration_bytes(calibration))
                             : code;
}

static int compact_write_graph(struct compact *compact, struct compact_merge *merge)
{
    struct block_file *written = NULL;
    struct graph *graph = NULL;
    struct graph_view view;
    uint64_t offset;
    int code = segment_writer_flush(compact->writer, SECTION_VECTORS, &written, &offset);
    if (code == OMENDB_OK) {
        uint8_t *chunk = (uint8_t *)(uintptr_t)(written->base + offset);
        struct rows_view vectors = {&chunk, 31, UINT32_MAX >> 1, merge->info.vector_stride};
        checkpoint_make_codes(merge->collection, &vectors, merge->rows, &merge->info,
                              &merge->codes);
        if (merge->codes != NULL) /* the vectors are hardly read again before the end */
            blocks_release(written, offset, merge->rows * (uint64_t)merge->info.vector_stride);
        code = compact_build_graph(compact, merge, &vectors, &graph);
        if (code == OMENDB_OK) {
            graph_get_view(graph, &view);
            checkpoint_describe_graph(&view, merge->rows, &merge->info);
        }
        segment_flush_close(compact->writer, written);
    }
    if (code == OMENDB_OK)
        code = checkpoint_write_links(compact->writer, &view, &merge->info);
    graph_destroy(graph);
    if (code == OMENDB_OK && merge->codes != NULL)
        code = segment_writer_begin_section(compact->writer, SECTION_CODES);
    if (code == OMENDB_OK && merge->codes != NULL)
        code = segment_writer_append(compact->writer, merge->codes, compact_code_bytes(merge));
    if (code == OMENDB_OK)
        code = compact_write_calibration(compact->writer, &merge->calibration);
    return code;
}

static int compact_write_part(struct compact *compact, struct compact_merge *merge)
{
    struct segment_writer *writer = compact->writer;
    checkpoint_describe(merge->collection, &merge->info);
    merge->info.rows = merge->rows;
    int code = segment_writer_begin_part(writer);
    if (code == OMENDB_OK)
        code = compact_write_vectors(writer, merge);
    if (code == OMENDB_OK)
        code = compact_write_graph(compact, merge);
    if (code == OMENDB_OK)
        code = checkpoint_write_ids(writer, &compact->db->memory, merge->ids, merge->rows,
                                    &merge->info);
    if (code == OMENDB_OK)
        code = segment_writer_end_part(writer, &merge->info);
    merge->part = segment_writer_parts(writer) - 1;
    return code;
}

/* ------------------------------------------------------------------ installing */

static int compact_is_input(const struct compact_merge *merge, const struct segment *segment)
{
    for (uint32_t i = 0; i < merge->input_count; i++) {
        if (merge->inputs[i] == segment)
            return 1;
    }
    return 0;
}

struct compact_carry {
    const uint32_t *map;
    struct tombstones *tombstones;
};

static int compact_carry_tombstone(void *context, uint32_t row, uint64_t end)
{
    struct compact_carry *carry = context;
    if (carry->map[row] == GRAPH_NO_ROW)
        return OMENDB_OK;
    int code = tombstones_prepare(carry->tombstones, carry->map[row]);
    if (code == OMENDB_OK)
        tombstones_set(carry->tombstones, carry->map[row], end);
    return code;
}

/* The version without the inputs, with the output (NULL: no row was left). commit_mutex. */
static int compact_swap(struct compact_merge *merge, struct segment *output)
{
    struct collection *collection = merge->collection;
    const struct version *old = atomic_load(&collection->version);
    uint32_t present = 0, at = 0;
    for (uint32_t i = 0; i < old->segment_count; i++)
        present += (uint32_t)compact_is_input(merge, old->segments[i]);
    if (present != merge->input_count || atomic_load(&collection->dropped))
        return OMENDB_DROPPED;
    struct version *version = version_create(&collection->db->memory, old->memtable_count,
                                             old->segment_count - present + (output != NULL));
    if (version == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < old->memtable_count; i++)
        version->memtables[i] = memtable_reference(old->memtables[i]);
    /* The largest first, as it will be searched by most. */
    if (output != NULL)
        version->segments[at++] = segment_reference(output);
    for (uint32_t i = 0; i < old->segment_count; i++) {
        if (!compact_is_input(merge, old->segments[i]))
            version->segments[at++] = segment_reference(old->segments[i]);
    }
    version_install(collection, version);
    return OMENDB_OK;
}

/* maintenance_mutex. */
static int compact_install(struct compact *compact, struct compact_merge *merge,
                           struct shared_file *file)
{
    omendb *db = compact->db;
    struct segment *output = NULL;
    int code = OMENDB_OK;
    if (merge->rows != 0) {
        code = segment_open(db, merge->collection, file, merge->part, NULL, merge->begins, &output);
        if (code != OMENDB_OK)
            return code;
        merge->begins = NULL;
    }
    platform_mutex_lock(&db->commit_mutex);
    for (uint32_t i = 0; output != NULL && i < merge->input_count && code == OMENDB_OK; i++) {
        struct compact_carry carry = {merge->maps[i], output->tombstones};
        code = tombstones_each(merge->inputs[i]->tombstones, merge->inputs[i]->info.rows,
                               compact_carry_tombstone, &carry);
    }
    if (code == OMENDB_OK)
        code = compact_swap(merge, output);
    platform_mutex_unlock(&db->commit_mutex);
    segment_release(output);
    merge->installed = code == OMENDB_OK;
    /* A collection that went meanwhile has no use for the output. */
    return code == OMENDB_DROPPED ? OMENDB_OK : code;
}

static int compact_install_all(struct compact *compact)
{
    omendb *db = compact->db;
    struct shared_file *file = NULL;
    int code = OMENDB_OK, installed = 0;
    platform_mutex_lock(&db->maintenance_mutex);
    if (compact->file.number != 0)
        code = shared_file_open(db, &compact->file, &file);
    for (size_t i = 0; i < compact->merge_count && code == OMENDB_OK; i++) {
        if (compact->merges[i].input_count != 0)
            code = compact_install(compact, &compact->merges[i], file);
        installed += compact->merges[i].installed;
    }
    shared_file_release(file);
    if (installed) {
        /* When this fails the old manifest stays in force with the same records; the next
         * checkpoint names the new file, which stays protected until then. */
        int published = checkpoint_republish(db);
        code = code == OMENDB_OK ? published : code;
        if (published == OMENDB_OK)
            checkpoint_unprotect(db, compact->number);
        atomic_fetch_add(&db->merges, (uint64_t)installed);
    } else {
        checkpoint_unprotect(db, compact->number);
    }
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

/* ------------------------------------------------------------------ the whole */

static void compact_destroy_merge(struct compact_merge *merge)
{
    struct memory *memory = &merge->collection->db->memory;
    for (uint32_t i = 0; i < merge->input_count; i++)
        memory_free(memory, merge->maps[i],
                    merge->maps[i] == NULL ? 0
                                           : merge->inputs[i]->info.rows * sizeof **merge->maps);
    memory_free(memory, merge->ids, merge->ids == NULL ? 0 : merge->rows * sizeof *merge->ids);
    memory_free_aligned(memory, merge->codes, compact_code_bytes(merge));
    begin_array_destroy(merge->begins);
    version_release(merge->version);
}

static uint64_t compact_expected_bytes(const struct compact *compact)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < compact->merge_count; i++) {
        const struct collection *collection = compact->merges[i].collection;
        bytes +=
            compact->merges[i].rows * (uint64_t)(collection->vector_bytes + collection->schema.dim +
                                                 collection->schema.M * 9 + 40);
    }
    return bytes;
}

/* Writes all outputs to one file and syncs it. */
static int compact_write(struct compact *compact)
{
    omendb *db = compact->db;
    uint64_t rows = 0;
    for (size_t i = 0; i < compact->merge_count; i++)
        rows += compact->merges[i].rows;
    if (rows == 0)
        return OMENDB_OK;
    int code = segment_writer_create(&db->storage, STORAGE_SEGMENT, compact->number,
                                     compact_expected_bytes(compact), &compact->writer);
    for (size_t i = 0; i < compact->merge_count && code == OMENDB_OK; i++) {
        if (compact->merges[i].rows != 0)
            code = compact_write_part(compact, &compact->merges[i]);
    }
    compact->file = (struct manifest_file){compact->number, 0, 0, STORAGE_SEGMENT};
    if (code == OMENDB_OK)
        code =
            segment_writer_finish(compact->writer, &compact->file.size, &compact->file.footer_crc);
    segment_writer_destroy(compact->writer);
    return code;
}

OMENDB_INTERNAL int compact_run(omendb *db, struct collection *const *collections, size_t count,
                                int everything,
                                int (*progress)(void *context, uint64_t done, uint64_t total),
                                void *context, int *merged)
{
    struct compact compact = {.db = db,
                              .everything = everything,
                              .progress = progress,
                              .context = context,
                              .merge_count = count};
    uint32_t inputs = 0;
    size_t planned = 0;
    *merged = 0;
    int code = commit_check_writable(db);
    if (code != OMENDB_OK || count == 0)
        return code;
    compact.merges = memory_zalloc(&db->memory, count * sizeof *compact.merges);
    if (compact.merges == NULL)
        return OMENDB_NOMEM;
    for (; planned < count && code == OMENDB_OK; planned++) {
        compact.merges[planned].collection = collections[planned];
        code = compact_plan(&compact.merges[planned], everything);
        inputs += compact.merges[planned].input_count;
    }
    if (code == OMENDB_OK && inputs != 0) {
        code = checkpoint_protect(db, &compact.number);
        if (code == OMENDB_OK) {
            code = compact_write(&compact);
            if (code == OMENDB_OK) {
                code = compact_install_all(&compact);
                *merged = code == OMENDB_OK;
            } else {
                if (atomic_load(&db->storage.sync_failed))
                    commit_poison(db, code);
                platform_mutex_lock(&db->maintenance_mutex);
                checkpoint_unprotect(db, compact.number);
                platform_mutex_unlock(&db->maintenance_mutex);
            }
        }
    }
    for (size_t i = 0; i < planned; i++)
        compact_destroy_merge(&compact.merges[i]);
    memory_free(&db->memory, compact.merges, count * sizeof *compact.merges);
    return code;
}

#undef COMPACT_MAX_SEGMENTS
#undef COMPACT_GROWTH
#undef COMPACT_MAX_INPUTS
#undef COMPACT_SLICE
#undef COMPACT_GRAIN
#undef COMPACT_GATE_MIN_ROWS
#undef COMPACT_GATE_QUERIES
#undef COMPACT_GATE_K
#undef COMPACT_GATE_LOSS
#undef COMPACT_CURVE_GROWTH

/* ==============================================================================================
 * recover.c
 * ============================================================================================== */

/* recover.c: from files to a running database; and for read-only openers, onwards.
 *
 * The manifest gives the collections and their segments as of commit S; the logs from wal_number on
 * give the commits after S. A log that was read is never appended to: the first write begins a new
 * one and, in the same step, publishes a manifest that no longer needs the old. Where there was
 * anything to replay that happens at once, so that what was shown after a crash stays whatever
 * happens next.
 *
 * Logs form a chain: each names its predecessor and the predecessor's final length, written after
 * the predecessor was synced. A log without predecessor that the manifest does not name is the
 * debris of a recovery that did not finish. */

#define RECOVER_MAX_LOGS 1024

/* ------------------------------------------------------------------ what lies in the directory */

struct recover_listing {
    int has_current;
    int has_foreign;
    int has_segments;
    uint64_t largest;
    uint64_t logs[RECOVER_MAX_LOGS]; /* ascending */
    size_t log_count;
    int too_many_logs;
    uint64_t manifests[DATABASE_RETAINED];
    size_t manifest_count;
    uint32_t manifest_overflow;
};

static void recover_note_log(struct recover_listing *listing, uint64_t number)
{
    if (listing->log_count == RECOVER_MAX_LOGS) {
        listing->too_many_logs = 1;
        return;
    }
    size_t at = listing->log_count++;
    for (; at > 0 && listing->logs[at - 1] > number; at--)
        listing->logs[at] = listing->logs[at - 1];
    listing->logs[at] = number;
}

static int recover_note_name(void *context, const char *name)
{
    struct recover_listing *listing = context;
    enum storage_kind kind;
    uint64_t number;
    if (strcmp(name, "CURRENT") == 0) {
        listing->has_current = 1;
    } else if (storage_parse_name(name, &kind, &number)) {
        listing->largest = number > listing->largest ? number : listing->largest;
        listing->has_segments |= kind == STORAGE_SEGMENT || kind == STORAGE_OVERLAY;
        if (kind == STORAGE_WAL)
            recover_note_log(listing, number);
        if (kind == STORAGE_MANIFEST) {
            if (listing->manifest_count < DATABASE_RETAINED)
                listing->manifests[listing->manifest_count++] = number;
            else
                listing->manifest_overflow = 1;
        }
    } else if (strcmp(name, "LOCK") != 0 && strcmp(name, "CURRENT.tmp") != 0) {
        listing->has_foreign = 1;
    }
    return 0;
}

static int recover_list(omendb *db, struct recover_listing *listing)
{
    memset(listing, 0, sizeof *listing);
    int code = db->storage.vfs->list(db->storage.vfs->context, db->storage.directory,
                                     recover_note_name, listing);
    if (code != OMENDB_OK)
        return error_set(code, "the directory of the database cannot be listed");
    if (listing->largest == UINT64_MAX)
        return error_set(OMENDB_FORMAT, "a file of the database has the largest number there is");
    return listing->too_many_logs
               ? error_set(OMENDB_TOOBIG, "there are more than %d logs", RECOVER_MAX_LOGS)
               : OMENDB_OK;
}

/* ------------------------------------------------------------------ manifest to collections */

struct recover_files {
    struct shared_file **files; /* parallel to manifest.files */
};

static struct shared_file *recover_find_file(const omendb *db, const struct recover_files *files,
                                             uint64_t number)
{
    for (uint32_t i = 0; i < db->published.file_count; i++) {
        if (db->published.files[i].number == number)
            return files->files[i];
    }
    return NULL;
}

static int recover_tombstones(omendb *db, const struct recover_files *files,
                              const struct manifest_segment *entry, struct segment *segment)
{
    struct shared_file *shared = recover_find_file(db, files, entry->overlay_file);
    if (entry->overlay_file == 0)
        return OMENDB_OK;
    if (shared == NULL || entry->overlay_part >= shared->file->part_count)
        return error_set(
            OMENDB_CORRUPT,
            "MANIFEST-%llu names part %u of ovl-%llu, which is not there; restore from a backup",
            (unsigned long long)db->published.number, entry->overlay_part,
            (unsigned long long)entry->overlay_file);
    struct section_range range =
        segment_section(shared->file, entry->overlay_part, SECTION_TOMBSTONES);
    const struct part_info *info = &shared->file->parts[entry->overlay_part];
    if (info->target_file != entry->file || info->target_part != entry->part ||
        range.length % sizeof(uint32_t) != 0)
        return error_set(OMENDB_CORRUPT,
                         "ovl-%llu: part %u does not belong to seg-%llu; restore from a backup",
                         (unsigned long long)entry->overlay_file, entry->overlay_part,
                         (unsigned long long)entry->file);
    int code = range.length == 0 ? OMENDB_OK
                                 : blocks_touch(&shared->file->blocks, range.offset, range.length);
    for (uint64_t at = 0; at < range.length && code == OMENDB_OK; at += sizeof(uint32_t)) {
        uint32_t row;
        memcpy(&row, shared->file->blocks.base + range.offset + at, sizeof row);
        if (row >= segment->info.rows)
            return error_set(OMENDB_CORRUPT,
                             "ovl-%llu: part %u: row %u of %u; restore from a backup",
                             (unsigned long long)entry->overlay_file, entry->overlay_part, row,
                             segment->info.rows);
        code = tombstones_prepare(segment->tombstones, row);
        if (code == OMENDB_OK && tombstones_get(segment->tombstones, row) == 0)
            tombstones_set(segment->tombstones, row,
                           db->published.commit == 0 ? 1 : db->published.commit);
    }
    segment->overlay_file = entry->overlay_file;
    segment->overlay_part = entry->overlay_part;
    segment->overlay_commit = db->published.commit;
    return code;
}

static int recover_segments(omendb *db, const struct recover_files *files,
                            const struct manifest_collection *entry, struct collection *collection)
{
    struct version *version = version_create(&db->memory, 0, entry->segment_count);
    int code = version == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (uint32_t i = 0; i < entry->segment_count && code == OMENDB_OK; i++) {
        struct shared_file *shared = recover_find_file(db, files, entry->segments[i].file);
        if (shared == NULL)
            code = error_set(
                OMENDB_CORRUPT,
                "MANIFEST-%llu names seg-%llu, which it does not list; restore from a backup",
                (unsigned long long)db->published.number,
                (unsigned long long)entry->segments[i].file);
        if (code == OMENDB_OK)
            code = segment_open(db, collection, shared, entry->segments[i].part, NULL, NULL,
                                &version->segments[i]);
        if (code == OMENDB_OK)
            code = recover_tombstones(db, files, &entry->segments[i], version->segments[i]);
    }
    if (code != OMENDB_OK) {
        version_release(version);
        return code;
    }
    collection->active = NULL;
    version_install(collection, version);
    return OMENDB_OK;
}

/* A refresh finds the same curve again, or a newer one; what it replaces may be in use. */
static int recover_calibration(omendb *db, const struct manifest_collection *entry,
                               struct collection *collection)
{
    struct calibration *old = atomic_load(&collection->calibration);
    if (entry->calibration == NULL ||
        (old != NULL && old->count == entry->calibration->count &&
         old->all_rows == entry->calibration->all_rows &&
         memcmp(old->entries, entry->calibration->entries, sizeof old->entries) == 0))
        return OMENDB_OK;
    struct calibration *made = memory_alloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    *made = *entry->calibration;
    made->older = old;
    atomic_store_explicit(&collection->calibration, made, memory_order_release);
    return OMENDB_OK;
}

static int recover_collection(omendb *db, const struct recover_files *files,
                              const struct manifest_collection *entry)
{
    struct collection *collection = catalog_by_id(&db->catalog, entry->id);
    int code = OMENDB_OK;
    if (collection == NULL) {
        code = catalog_reserve(db, &db->catalog, 1);
        if (code == OMENDB_OK)
            code = collection_create(db, entry->id, entry->name, &entry->schema, &collection);
        if (code == OMENDB_OK)
            catalog_insert(&db->catalog, collection);
    }
    if (code == OMENDB_OK)
        code = recover_segments(db, files, entry, collection);
    if (code == OMENDB_OK)
        code = recover_calibration(db, entry, collection);
    if (code == OMENDB_OK)
        atomic_store(&collection->next_id, entry->next_id);
    return code;
}

static void recover_drop(omendb *db, struct collection *collection)
{
    atomic_store(&collection->dropped, 1);
    catalog_remove(&db->catalog, collection);
    collection_release(collection);
}

/* A collection that was created after the manifest's commit: the log has all of it. */
static int recover_empty(omendb *db, struct collection *collection)
{
    struct version *version = version_create(&db->memory, 0, 0);
    if (version == NULL)
        return OMENDB_NOMEM;
    collection->active = NULL;
    atomic_store(&collection->next_id, 0);
    version_install(collection, version);
    return OMENDB_OK;
}

/* What a refreshed manifest no longer has, or does not have yet. */
static int recover_drop_missing(omendb *db)
{
    int code = OMENDB_OK;
    for (size_t i = db->catalog.count; i-- > 0 && code == OMENDB_OK;) {
        struct collection *collection = db->catalog.items[i];
        int found = 0;
        for (uint32_t m = 0; m < db->published.collection_count && !found; m++)
            found = db->published.collections[m].id == collection->id;
        if (!found && collection->id < db->published.next_collection)
            recover_drop(db, collection);
        else if (!found)
            code = recover_empty(db, collection);
    }
    return code;
}

/* From db->published to the catalog. */
static int recover_load(omendb *db)
{
    const struct manifest *manifest = &db->published;
    struct recover_files files = {NULL};
    int code = recover_drop_missing(db);
    if (code != OMENDB_OK)
        return code;
    files.files = memory_zalloc(&db->memory, manifest->file_count * sizeof *files.files);
    if (files.files == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < manifest->file_count && code == OMENDB_OK; i++)
        code = shared_file_open(db, &manifest->files[i], &files.files[i]);
    for (uint32_t i = 0; i < manifest->collection_count && code == OMENDB_OK; i++)
        code = recover_collection(db, &files, &manifest->collections[i]);
    for (uint32_t i = 0; i < manifest->file_count; i++)
        shared_file_release(files.files[i]);
    memory_free(&db->memory, files.files, manifest->file_count * sizeof *files.files);
    db->next_collection = manifest->next_collection;
    db->appended_commit = db->durable_commit = manifest->commit;
    atomic_store(&db->visible_commit, manifest->commit);
    atomic_store(&db->checkpoint_commit, manifest->commit);
    atomic_store(&db->log_bytes, 0);
    return code;
}

/* ------------------------------------------------------------------ logs */

struct recover_replay {
    omendb *db;
    uint64_t delivered;
};

static int recover_deliver(void *context, const struct wal_record *record)
{
    struct recover_replay *replay = context;
    if (record->sequence <= replay->db->appended_commit)
        return OMENDB_OK;
    if (record->type != WAL_COMMIT)
        return error_set(
            OMENDB_FORMAT,
            "log: record %llu at offset %llu has type %u; a later version of OmenDB wrote it",
            (unsigned long long)record->sequence, (unsigned long long)record->offset, record->type);
    if (record->sequence != replay->db->appended_commit + 1)
        return error_set(
            OMENDB_CORRUPT, "log: commit %llu follows on commit %llu; restore from a backup",
            (unsigned long long)record->sequence, (unsigned long long)replay->db->appended_commit);
    replay->delivered++;
    return commit_replay(replay->db, record->sequence, record->payload, record->size);
}

static int recover_stop(void *context, const struct wal_record *record)
{
    (void)context;
    (void)record;
    return OMENDB_DONE;
}

/* Whether anything but zeros follows the place of the header. */
static int recover_has_records(omendb *db, uint64_t number, int *has)
{
    struct storage_file file = {0};
    char name[STORAGE_NAME_BYTES];
    uint64_t size = 0;
    uint8_t buffer[4096];
    storage_name(STORAGE_WAL, number, name);
    *has = 0;
    int code = storage_open(&db->storage, name, OMENDB_OPEN_READ, &file);
    if (code == OMENDB_OK)
        code = storage_size(&db->storage, &file, &size);
    for (uint64_t at = WAL_HEADER_BYTES; at < size && code == OMENDB_OK && !*has;
         at += sizeof buffer) {
        size_t run = size - at < sizeof buffer ? (size_t)(size - at) : sizeof buffer;
        code = storage_read(&db->storage, &file, at, buffer, run);
        for (size_t i = 0; i < run && code == OMENDB_OK && !*has; i++)
            *has = buffer[i] != 0;
    }
    storage_close(&db->storage, &file);
    return code;
}

/* The log that says it follows `number`; 0: none. */
static int recover_successor(omendb *db, const struct recover_listing *listing, uint64_t number,
                             uint64_t *successor, uint64_t *final_length)
{
    *successor = 0;
    *final_length = WAL_LENGTH_UNKNOWN;
    for (size_t i = 0; i < listing->log_count; i++) {
        if (listing->logs[i] <= number)
            continue;
        struct wal_replay peek = {.number = listing->logs[i],
                                  .final_length = WAL_LENGTH_UNKNOWN,
                                  .live_reader = db->read_only != 0};
        int has, code = wal_read(&db->storage, &peek, recover_stop, NULL);
        if (code == OMENDB_NOTFOUND)
            continue; /* never completed, or collected meanwhile */
        if (code == OMENDB_NOMEM || code == OMENDB_IOERR)
            return code;
        if (code != OMENDB_OK && code != OMENDB_DONE) {
            /* A header that never became whole is debris, unless something was logged behind it. */
            int read = recover_has_records(db, listing->logs[i], &has);
            if (read != OMENDB_OK || !has)
                continue;
            return code;
        }
        if (peek.predecessor == number) {
            *successor = listing->logs[i];
            *final_length = peek.predecessor_length;
            return OMENDB_OK;
        }
    }
    return OMENDB_OK;
}

/* Replays from db->replay_* on. */
static int recover_logs(omendb *db, const struct recover_listing *listing, uint64_t *delivered)
{
    struct recover_replay replay = {db, 0};
    int code = OMENDB_OK;
    /* A copy made by backup has no log. */
    while (code == OMENDB_OK && db->replay_wal != 0) {
        uint64_t successor, final_length;
        code = recover_successor(db, listing, db->replay_wal, &successor, &final_length);
        if (code != OMENDB_OK)
            break;
        struct wal_replay log = {.number = db->replay_wal,
                                 .final_length = final_length,
                                 .start_offset = db->replay_offset};
        log.live_reader = db->read_only && successor == 0;
        log.may_sync = log.live_reader;
        code = wal_read(&db->storage, &log, recover_deliver, &replay);
        if (code == OMENDB_NOTFOUND)
            code = error_set(OMENDB_CORRUPT, "wal-%llu is missing; restore from a backup",
                             (unsigned long long)db->replay_wal);
        if (code != OMENDB_OK)
            break;
        db->replay_offset = log.end;
        if (log.torn && !db->read_only)
            database_log(db, OMENDB_OK,
                         "the log ended in a record that was never finished; it was cut");
        if (successor == 0)
            break;
        db->replay_wal = successor;
        db->replay_offset = 0;
    }
    *delivered = replay.delivered;
    return code;
}

/* ------------------------------------------------------------------ opening */

static int recover_refuse_foreign(omendb *db, const struct recover_listing *listing, int must_exist)
{
    int has;
    if (listing->has_foreign)
        return error_set(
            OMENDB_FORMAT,
            "the directory holds other things than a database; give a path of its own");
    if (listing->has_segments)
        return error_set(OMENDB_CORRUPT,
                         "CURRENT is missing although there are segments; restore from a backup");
    for (size_t i = 0; i < listing->log_count; i++) {
        int code = recover_has_records(db, listing->logs[i], &has);
        if (code == OMENDB_OK && has)
            code = error_set(
                OMENDB_CORRUPT,
                "CURRENT is missing although wal-%llu holds commits; restore from a backup",
                (unsigned long long)listing->logs[i]);
        if (code != OMENDB_OK)
            return code;
    }
    if (must_exist || db->read_only)
        return error_set(OMENDB_NOTFOUND, "there is no database at this path");
    return OMENDB_OK;
}

/* The manifest that CURRENT names, held by a shared lock so that the writer keeps its files. */
static int recover_read_shared(omendb *db)
{
    const omendb_vfs *vfs = db->storage.vfs;
    for (int attempt = 0; attempt < 100; attempt++) {
        char name[STORAGE_NAME_BYTES];
        uint64_t number, again = 0;
        int code = manifest_current(&db->storage, &number);
        if (code != OMENDB_OK)
            return code;
        storage_name(STORAGE_MANIFEST, number, name);
        code = storage_open(&db->storage, name, OMENDB_OPEN_READ, &db->manifest_lock);
        if (code == OMENDB_NOTFOUND)
            continue; /* collected between the two calls */
        if (code != OMENDB_OK)
            return code;
        code = vfs->lock(vfs->context, db->manifest_lock.handle, OMENDB_LOCK_SHARED);
        if (code != OMENDB_BUSY)
            code = manifest_current(&db->storage, &again);
        if (code == OMENDB_OK && again == number) {
            manifest_destroy(&db->memory, &db->published);
            code = manifest_read(&db->storage, &db->published);
            if (code != OMENDB_OK || db->published.number == number)
                return code;
        }
        storage_close(&db->storage, &db->manifest_lock);
    }
    return error_set(OMENDB_BUSY, "the manifest changes faster than it can be read; try again");
}

static int recover_take_lock(omendb *db)
{
    const omendb_vfs *vfs = db->storage.vfs;
    int code =
        storage_open(&db->storage, "LOCK", OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE, &db->lock_file);
    if (code != OMENDB_OK)
        return code;
    code = vfs->lock(vfs->context, db->lock_file.handle, OMENDB_LOCK_EXCLUSIVE);
    if (code == OMENDB_BUSY)
        return error_set(
            code,
            "the database is open for writing elsewhere; close it there, or open it read_only");
    return code == OMENDB_OK ? code : error_set(code, "LOCK cannot be locked");
}

/* What was replayed may be in the page cache only; it is about to be shown, so it must stay. Logs
 * before the last were synced when it began. */
static int recover_sync_log(omendb *db)
{
    struct storage_file file = {0};
    char name[STORAGE_NAME_BYTES];
    storage_name(STORAGE_WAL, db->replay_wal, name);
    int code = storage_open(&db->storage, name, OMENDB_OPEN_READ | OMENDB_OPEN_WRITE, &file);
    if (code == OMENDB_OK)
        code = storage_sync(&db->storage, &file);
    storage_close(&db->storage, &file);
    return code;
}

static int recover_open_existing(omendb *db, struct recover_listing *listing)
{
    uint64_t delivered = 0;
    int code =
        db->read_only ? recover_read_shared(db) : manifest_read(&db->storage, &db->published);
    /* A writer may have begun another log before the manifest was held. */
    if (code == OMENDB_OK && db->read_only)
        code = recover_list(db, listing);
    if (code == OMENDB_OK && !db->read_only && db->published.read_only_features != 0)
        code = error_set(OMENDB_FORMAT,
                         "a later version of OmenDB wrote it with features %08x; open it read_only",
                         db->published.read_only_features);
    if (code == OMENDB_OK)
        code = recover_load(db);
    if (code != OMENDB_OK)
        return code;
    db->replay_wal = db->published.wal_number;
    db->replay_offset = 0;
    code = recover_logs(db, listing, &delivered);
    if (code != OMENDB_OK || db->read_only)
        return code;
    uint64_t next = db->published.next_file;
    atomic_store(&db->next_file, listing->largest >= next ? listing->largest + 1 : next);
    size_t kept = 0;
    for (size_t i = 0; i < listing->manifest_count; i++) {
        if (listing->manifests[i] != db->published.number)
            db->retained[kept++] = listing->manifests[i];
    }
    db->retained_overflow = listing->manifest_overflow;
    if (delivered == 0)
        return OMENDB_OK;
    code = checkpoint_run(db, 1);
    /* A full disk must not keep anybody from reading; the first write tries again. */
    return code == OMENDB_FULL ? recover_sync_log(db) : code;
}

OMENDB_INTERNAL int recover_open(omendb *db, int must_exist)
{
    struct recover_listing listing;
    int code = recover_list(db, &listing);
    if (code == OMENDB_OK && !listing.has_current)
        code = recover_refuse_foreign(db, &listing, must_exist);
    if (code == OMENDB_OK && !db->read_only)
        code = recover_take_lock(db);
    /* Once more with the lock: another process may have been at work in between. */
    if (code == OMENDB_OK)
        code = recover_list(db, &listing);
    if (code != OMENDB_OK)
        return code;
    if (listing.has_current)
        return recover_open_existing(db, &listing);
    atomic_store(&db->next_file, listing.largest + 1);
    db->next_collection = 1;
    return checkpoint_run(db, 1);
}

OMENDB_INTERNAL int recover_refresh(omendb *db)
{
    struct recover_listing listing;
    uint64_t number, delivered;
    int code = manifest_current(&db->storage, &number);
    if (code == OMENDB_OK && number != db->published.number) {
        struct storage_file old_lock = db->manifest_lock;
        memset(&db->manifest_lock, 0, sizeof db->manifest_lock);
        code = recover_read_shared(db);
        /* Where it failed, what the handle shows now is still held. */
        struct storage_file *idle = code == OMENDB_OK ? &old_lock : &db->manifest_lock;
        storage_close(&db->storage, idle);
        if (code != OMENDB_OK)
            db->manifest_lock = old_lock;
        if (code == OMENDB_OK) {
            code = recover_load(db);
            atomic_store(&db->half_refreshed, code != OMENDB_OK);
        }
        if (code != OMENDB_OK)
            db->published.number = 0; /* the next refresh loads everything again */
        db->replay_wal = db->published.wal_number;
        db->replay_offset = 0;
    }
    /* Listed after the manifest was read: the logs that it names are there by then. */
    if (code == OMENDB_OK)
        code = recover_list(db, &listing);
    if (code == OMENDB_OK)
        code = recover_logs(db, &listing, &delivered);
    return code;
}

#undef RECOVER_MAX_LOGS

/* ==============================================================================================
 * work.c
 * ============================================================================================== */

/* work.c: background threads, and who does their work where there are none.
 *
 * Units, most urgent first: a checkpoint when the log is long; linking rows of memtables, some
 * hundred at a time; a share of a parallel job (a batch of queries, the building of a merge);
 * copying segments that are searched often into memory; a merge. One thread at a time has the right
 * to merge, and spreads the building over the others. A thread in a parallel job leaves it when
 * something more urgent turns up.
 *
 * With threads = 0 the queues fill all the same and omendb_work empties them; a writer that is over
 * a limit does the work itself. */

#define WORK_INDEX_ROWS   256
#define WORK_POLL_US      1000
#define WORK_SEALED_TAILS 4

struct work_job {
    struct work_job *next;
    int (*fn)(void *context, uint64_t index);
    void *context;
    uint64_t count;
    _Atomic uint64_t at;
    _Atomic int code;
    uint32_t active;              /* threads inside; work mutex */
    char error[ERROR_TEXT_BYTES]; /* of the first failure; work mutex */
};

struct work_queue {
    struct collection *head, *tail;
};

struct work_state {
    omendb *db;
    struct platform_mutex mutex;
    struct platform_condition
        condition; /* something to do, or a job's thread left, or a merge ended */
    struct platform_thread *threads;
    uint32_t thread_count;
    uint32_t started;
    uint32_t stopping;
    uint32_t checkpointing;
    uint64_t retry_bytes; /* of log, at which a checkpoint that failed is tried again */
    /* Memory in use after the last checkpoint, or the least since: what came on top is what the
     * next one can give back. */
    _Atomic uint64_t settled_bytes;
    _Atomic uint32_t merge_starved; /* 1: the last merge failed for want of memory */
    uint32_t merging;
    struct work_queue queues[WORK_QUEUES];
    struct work_job *jobs;
};

/* ------------------------------------------------------------------ queues */

/* Queues are linked through the collections; each entry holds a reference. Work mutex. */
static void work_push(struct work_state *work, enum work_queue_kind kind,
                      struct collection *collection)
{
    struct work_queue *queue = &work->queues[kind];
    collection->queue_next[kind] = NULL;
    if (queue->tail != NULL)
        queue->tail->queue_next[kind] = collection;
    else
        queue->head = collection;
    queue->tail = collection;
    atomic_store(&collection->queued[kind], 1);
}

static struct collection *work_pop(struct work_state *work, enum work_queue_kind kind)
{
    struct work_queue *queue = &work->queues[kind];
    struct collection *collection = queue->head;
    if (collection == NULL)
        return NULL;
    queue->head = collection->queue_next[kind];
    if (queue->head == NULL)
        queue->tail = NULL;
    atomic_store(&collection->queued[kind], 0);
    return collection;
}

static void work_notice(struct collection *collection, enum work_queue_kind kind)
{
    struct work_state *work = collection->db->work;
    platform_mutex_lock(&work->mutex);
    if (!atomic_load(&collection->queued[kind])) {
        work_push(work, kind, collection_reference(collection));
        platform_condition_broadcast(&work->condition);
    }
    platform_mutex_unlock(&work->mutex);
}

OMENDB_INTERNAL void work_notice_index(struct collection *collection)
{
    if (!atomic_load(&collection->queued[WORK_INDEX]))
        work_notice(collection, WORK_INDEX);
}

OMENDB_INTERNAL void work_notice_merge(struct collection *collection)
{
    if (!atomic_load(&collection->queued[WORK_MERGE]) && compact_wanted(collection))
        work_notice(collection, WORK_MERGE);
}

OMENDB_INTERNAL void work_notice_heat(struct collection *collection)
{
    work_notice(collection, WORK_HEAT);
}

OMENDB_INTERNAL void work_notice_log(omendb *db)
{
    platform_mutex_lock(&db->work->mutex);
    platform_condition_broadcast(&db->work->condition);
    platform_mutex_unlock(&db->work->mutex);
}

/* ------------------------------------------------------------------ units */

static void work_report(omendb *db, int code)
{
    if (code != OMENDB_OK && code != OMENDB_DONE)
        database_log(db, code, error_text());
}

/* At least `quarters` of what writers may use is in use, and a checkpoint would give an eighth
 * back. A database in memory has nowhere to move its rows to. */
static int work_is_pressed(const omendb *db, uint64_t quarters)
{
    const struct memory *memory = &db->memory;
    if (memory->limit == 0 || db->in_memory || atomic_load(&db->log_bytes) == 0)
        return 0;
    uint64_t allowed = memory->limit - memory->reserve, used = atomic_load(&memory->used);
    uint64_t settled = atomic_load(&db->work->settled_bytes);
    if (used < settled)
        atomic_store(&db->work->settled_bytes, settled = used);
    return used >= allowed / 4 * quarters && used - settled >= allowed / 8;
}

OMENDB_INTERNAL int work_checkpoint(omendb *db, int force)
{
    memory_begin_maintenance();
    int code = checkpoint_run(db, force);
    memory_end_maintenance();
    if (code == OMENDB_OK)
        atomic_store(&db->work->settled_bytes, atomic_load(&db->memory.used));
    return code;
}

static int work_is_merging(struct work_state *work)
{
    platform_mutex_lock(&work->mutex);
    int merging = work->merging != 0;
    platform_mutex_unlock(&work->mutex);
    return merging;
}

OMENDB_INTERNAL int work_relieve(omendb *db, uint64_t *waited)
{
    char text[ERROR_TEXT_BYTES];
    uint64_t before = atomic_load(&db->memory.used);
    if (db->memory.limit == 0)
        return 0;
    /* A merge gives back more than a checkpoint of little, which would only make a small segment.
     */
    if (*waited < db->stall_timeout_us && !work_is_pressed(db, 0) && work_is_merging(db->work)) {
        do {
            platform_sleep_us(WORK_POLL_US);
            *waited += WORK_POLL_US;
        } while (*waited < db->stall_timeout_us && atomic_load(&db->memory.used) >= before &&
                 work_is_merging(db->work));
        return 1;
    }
    if (db->in_memory)
        return 0;
    /* Where another thread is at a checkpoint this waits for it; it may be over already, so the
     * first time is worth a try. */
    int first = (*waited)++ == 0;
    memcpy(text, error_text(), strlen(error_text()) + 1);
    int code = work_checkpoint(db, 1);
    if (code != OMENDB_NOMEM && code != OMENDB_OK)
        return first; /* trying again may tell the writer why */
    error_adopt(OMENDB_NOMEM, text);
    return code == OMENDB_OK &&
           (first || (*waited < db->stall_timeout_us && atomic_load(&db->memory.used) < before));
}

/* Whether the log asks for a checkpoint; after a failed one only when it has grown by a quarter of
 * the limit again. Work mutex. */
static int work_wants_checkpoint(const struct work_state *work)
{
    const omendb *db = work->db;
    uint64_t limit = db->wal_limit;
    if (atomic_load(&db->checkpoint_failed) != 0 && work->retry_bytes > limit)
        limit = work->retry_bytes;
    return !work->checkpointing && !db->read_only && !atomic_load(&db->poisoned) &&
           (atomic_load(&db->log_bytes) >= limit ||
            (atomic_load(&db->checkpoint_failed) == 0 && work_is_pressed(db, 2)));
}

static int work_do_checkpoint(struct work_state *work)
{
    int code = work_checkpoint(work->db, work_is_pressed(work->db, 2));
    work_report(work->db, code);
    platform_mutex_lock(&work->mutex);
    work->checkpointing = 0;
    work->retry_bytes =
        code == OMENDB_OK ? 0 : atomic_load(&work->db->log_bytes) + work->db->wal_limit / 4;
    platform_condition_broadcast(&work->condition);
    platform_mutex_unlock(&work->mutex);
    return code;
}

/* The first memtable that has rows to link, or NULL. */
static struct memtable *work_unindexed_memtable(const struct version *version)
{
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        struct memtable *memtable = version->memtables[i];
        if (!atomic_load(&memtable->sealed) &&
            atomic_load(&memtable->claimed) < atomic_load(&memtable->count))
            return memtable;
    }
    return NULL;
}

/* Links rows of the collection's memtables; queues it again when more are left. Takes the reference
 * over. */
static int work_do_index(struct work_state *work, struct collection *collection)
{
    omendb *db = work->db;
    uint64_t commit;
    uint32_t done = 0;
    int code = OMENDB_OK, more = 0;
    struct scratch *scratch = scratch_take(db);
    struct version *version = version_acquire_newest(collection, &commit);
    struct memtable *memtable = work_unindexed_memtable(version);
    if (scratch == NULL)
        code = OMENDB_NOMEM;
    else if (memtable != NULL && !atomic_load(&collection->dropped)) {
        code = memtable_index(memtable, scratch->graph, commit, WORK_INDEX_ROWS, &done);
        more = done != 0;
    }
    version_release(version);
    scratch_give(db, scratch);
    if (more)
        work_notice_index(collection);
    work_report(db, code);
    collection_release(collection);
    return code;
}

/* Copies the segments of the collection that were walked often enough. Without memory for one it
 * may be asked for again. Takes the reference over. */
static int work_do_heat(struct work_state *work, struct collection *collection)
{
    omendb *db = work->db;
    struct version *version = version_acquire(collection);
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < version->segment_count && code == OMENDB_OK; i++) {
        struct segment *segment = version->segments[i];
        if (atomic_load(&segment->walks) >= SEGMENT_WALKS_TO_HEAT && hot_is_wanted(db, segment))
            code = hot_make(db, segment);
        if (code == OMENDB_NOMEM) {
            atomic_store(&segment->walks, 0);
            code = OMENDB_OK;
        }
    }
    version_release(version);
    work_report(db, code);
    collection_release(collection);
    return code;
}

static uint64_t work_collection_bytes(struct collection *collection)
{
    struct version *version = version_acquire(collection);
    uint64_t rows = 0;
    for (uint32_t i = 0; i < version->segment_count; i++)
        rows += version->segments[i]->info.rows;
    version_release(version);
    return rows * collection->vector_bytes;
}

/* Takes collections off the queue: a large one alone, or many small ones. Work mutex. */
static size_t work_take_merges(struct work_state *work, struct collection **batch)
{
    size_t count = 0;
    while (count < COMPACT_BATCH && work->queues[WORK_MERGE].head != NULL) {
        int small = work_collection_bytes(work->queues[WORK_MERGE].head) < COMPACT_SMALL_BYTES;
        if (!small && count != 0)
            break;
        batch[count++] = work_pop(work, WORK_MERGE);
        if (!small)
            break;
    }
    return count;
}

static int work_do_merge(struct work_state *work, struct collection **batch, size_t count)
{
    int merged = 0;
    int code = compact_run(work->db, batch, count, 0, NULL, NULL, &merged);
    atomic_store(&work->merge_starved, code == OMENDB_NOMEM);
    work_report(work->db, code);
    for (size_t i = 0; i < count; i++) {
        if (code == OMENDB_OK && merged)
            work_notice_merge(batch[i]);
        collection_release(batch[i]);
    }
    work_merge_end(work->db);
    return code == OMENDB_DONE ? OMENDB_OK : code;
}

/* A share of a parallel job; leaves when something more urgent is waiting. Work mutex held on entry
 * and exit. */
static void work_join_job(struct work_state *work, struct work_job *job, int is_worker)
{
    job->active++;
    while (!(is_worker && (work->queues[WORK_INDEX].head != NULL || work_wants_checkpoint(work)))) {
        platform_mutex_unlock(&work->mutex);
        uint64_t index = atomic_fetch_add(&job->at, 1);
        int code = OMENDB_OK, run = index < job->count && atomic_load(&job->code) == OMENDB_OK;
        if (run)
            code = job->fn(job->context, index);
        platform_mutex_lock(&work->mutex);
        if (code != OMENDB_OK && atomic_load(&job->code) == OMENDB_OK) {
            const char *text = error_text();
            size_t length = strlen(text) < sizeof job->error ? strlen(text) : sizeof job->error - 1;
            memcpy(job->error, text, length);
            job->error[length] = 0;
            atomic_store(&job->code, code);
        }
        if (!run)
            break;
    }
    job->active--;
    if (job->active == 0)
        platform_condition_broadcast(&work->condition);
}

static struct work_job *work_open_job(const struct work_state *work)
{
    struct work_job *job = work->jobs;
    while (job != NULL &&
           (atomic_load(&job->at) >= job->count || atomic_load(&job->code) != OMENDB_OK))
        job = job->next;
    return job;
}

OMENDB_INTERNAL int work_parallel(omendb *db, uint64_t count,
                                  int (*fn)(void *context, uint64_t index), void *context)
{
    struct work_state *work = db->work;
    struct work_job job = {.fn = fn, .context = context, .count = count};
    platform_mutex_lock(&work->mutex);
    job.next = work->jobs;
    work->jobs = &job;
    platform_condition_broadcast(&work->condition);
    work_join_job(work, &job, 0);
    struct work_job **link = &work->jobs;
    while (*link != &job)
        link = &(*link)->next;
    *link = job.next;
    while (job.active != 0)
        platform_condition_wait(&work->condition, &work->mutex);
    platform_mutex_unlock(&work->mutex);
    int code = atomic_load(&job.code);
    return code == OMENDB_OK ? code : error_adopt(code, job.error);
}

/* Does the most urgent unit. Work mutex held on entry and exit. */
static int work_do_one(struct work_state *work, int *did)
{
    struct collection *batch[COMPACT_BATCH];
    struct work_job *job;
    int code = OMENDB_OK;
    *did = 1;
    if (work_wants_checkpoint(work)) {
        work->checkpointing = 1;
        platform_mutex_unlock(&work->mutex);
        code = work_do_checkpoint(work);
        platform_mutex_lock(&work->mutex);
        return code;
    }
    struct collection *collection = work_pop(work, WORK_INDEX);
    if (collection != NULL) {
        platform_mutex_unlock(&work->mutex);
        code = work_do_index(work, collection);
        platform_mutex_lock(&work->mutex);
        return code;
    }
    if ((job = work_open_job(work)) != NULL) {
        work_join_job(work, job, 1);
        return OMENDB_OK;
    }
    if ((collection = work_pop(work, WORK_HEAT)) != NULL) {
        platform_mutex_unlock(&work->mutex);
        code = work_do_heat(work, collection);
        platform_mutex_lock(&work->mutex);
        return code;
    }
    if (!work->merging && work->queues[WORK_MERGE].head != NULL && !work->db->read_only) {
        work->merging = 1;
        size_t count = work_take_merges(work, batch);
        platform_mutex_unlock(&work->mutex);
        code = work_do_merge(work, batch, count);
        platform_mutex_lock(&work->mutex);
        return code;
    }
    *did = 0;
    return OMENDB_OK;
}

OMENDB_INTERNAL int work_step(omendb *db, int *did)
{
    platform_mutex_lock(&db->work->mutex);
    int code = work_do_one(db->work, did);
    platform_mutex_unlock(&db->work->mutex);
    return code;
}

OMENDB_INTERNAL int work_merge_begin(omendb *db,
                                     int (*progress)(void *context, uint64_t done, uint64_t total),
                                     void *context)
{
    struct work_state *work = db->work;
    int code = OMENDB_OK;
    platform_mutex_lock(&work->mutex);
    while (work->merging && code == OMENDB_OK) {
        platform_condition_wait_for(&work->condition, &work->mutex, WORK_POLL_US * 100);
        platform_mutex_unlock(&work->mutex);
        if (progress != NULL &&
            progress(context, atomic_load(&db->merge_done), atomic_load(&db->merge_rows)) != 0)
            code = error_set(OMENDB_DONE, "stopped by the progress function");
        platform_mutex_lock(&work->mutex);
    }
    if (code == OMENDB_OK)
        work->merging = 1;
    platform_mutex_unlock(&work->mutex);
    return code;
}

OMENDB_INTERNAL void work_merge_end(omendb *db)
{
    struct work_state *work = db->work;
    platform_mutex_lock(&work->mutex);
    work->merging = 0;
    platform_condition_broadcast(&work->condition);
    platform_mutex_unlock(&work->mutex);
}

/* ------------------------------------------------------------------ slowing writers */

static int work_is_over(struct collection *collection)
{
    omendb *db = collection->db;
    struct version *version = version_acquire(collection);
    uint64_t growing = version_growing_tail_bytes(version, collection->vector_bytes);
    uint64_t all = version_unindexed_bytes(version, collection->vector_bytes);
    version_release(version);
    /* What was sealed before it was linked waits for a merge, which takes longer than writers can
     * be kept waiting: it gets room for some checkpoints. */
    return growing >= db->tail_limit || all / WORK_SEALED_TAILS >= db->tail_limit ||
           atomic_load(&db->log_bytes) >= db->wal_limit * 2 || work_is_pressed(db, 3);
}

/* A writer without background threads brings things under the limits itself. */
static int work_throttle_alone(struct collection *collection)
{
    omendb *db = collection->db;
    int code = OMENDB_OK, did = 1;
    while (code == OMENDB_OK && did &&
           (work_is_over(collection) || atomic_load(&db->log_bytes) >= db->wal_limit)) {
        if (atomic_load(&db->log_bytes) >= db->wal_limit || work_is_pressed(db, 2))
            code = work_checkpoint(db, 1);
        else
            code = work_step(db, &did);
    }
    return code;
}

/* What a writer waited for in vain. */
static int work_refuse(const struct collection *collection, uint64_t waited)
{
    const omendb *db = collection->db;
    const char *reason = "indexing is behind by more than tail_limit; write slower or raise it";
    if (work_is_pressed(db, 3))
        reason = "checkpoints do not free memory as fast as it fills up; raise memory_limit";
    else if (atomic_load(&db->log_bytes) >= db->wal_limit * 2)
        reason = "checkpoints are behind by more than wal_limit; write slower or raise it";
    else if (atomic_load(&db->work->merge_starved))
        reason = "indexing is behind, as a merge lacks memory; raise memory_limit";
    return error_set(OMENDB_BUSY, "collection \"%s\": after waiting for %llu ms: %s",
                     collection->name, (unsigned long long)(waited / 1000), reason);
}

OMENDB_INTERNAL int work_throttle(struct collection *collection, uint64_t bytes)
{
    omendb *db = collection->db;
    if (bytes == 0)
        return OMENDB_OK;
    if (db->work->thread_count == 0)
        return work_throttle_alone(collection);
    uint64_t waited = 0;
    while (work_is_over(collection)) {
        uint32_t failed = atomic_load(&db->checkpoint_failed);
        if (failed != 0 &&
            (atomic_load(&db->log_bytes) >= db->wal_limit * 2 || waited >= db->stall_timeout_us)) {
            /* The background could not, and what it sealed cannot be indexed before a checkpoint is
             * made; whoever writes is told why, by trying once more in this thread. */
            int code = work_checkpoint(db, 1);
            if (code != OMENDB_OK)
                return code;
        }
        if (waited >= db->stall_timeout_us)
            return work_refuse(collection, waited);
        work_notice_index(collection);
        work_notice_merge(collection);
        platform_sleep_us(WORK_POLL_US);
        waited += WORK_POLL_US;
    }
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ threads */

static void *work_run(void *argument)
{
    struct work_state *work = argument;
    platform_mutex_lock(&work->mutex);
    while (!work->stopping) {
        int did, code = work_do_one(work, &did);
        if (work->stopping)
            break;
        if (!did)
            platform_condition_wait(&work->condition, &work->mutex);
        else if (code != OMENDB_OK)
            platform_condition_wait_for(&work->condition, &work->mutex, WORK_POLL_US * 100);
    }
    platform_mutex_unlock(&work->mutex);
    return NULL;
}

OMENDB_INTERNAL int work_create(omendb *db, int32_t threads)
{
    struct work_state *work = memory_zalloc(&db->memory, sizeof *work);
    if (work == NULL)
        return OMENDB_NOMEM;
    work->db = db;
    db->work = work;
    work->thread_count = threads < 0 ? platform_cores() : (uint32_t)threads;
    int code = platform_mutex_init(&work->mutex);
    if (code == OMENDB_OK)
        code = platform_condition_init(&work->condition);
    return code;
}

OMENDB_INTERNAL int work_start(omendb *db)
{
    struct work_state *work = db->work;
    int code = OMENDB_OK;
    if (work->thread_count == 0)
        return OMENDB_OK;
    work->threads = memory_zalloc(&db->memory, work->thread_count * sizeof *work->threads);
    if (work->threads == NULL)
        return OMENDB_NOMEM;
    for (; work->started < work->thread_count && code == OMENDB_OK;
         work->started += code == OMENDB_OK)
        code = platform_thread_start(&work->threads[work->started], work_run, work);
    return code;
}

OMENDB_INTERNAL void work_stop(omendb *db)
{
    struct work_state *work = db->work;
    if (work == NULL)
        return;
    atomic_store(&db->stopping, 1);
    platform_mutex_lock(&work->mutex);
    work->stopping = 1;
    platform_condition_broadcast(&work->condition);
    platform_mutex_unlock(&work->mutex);
    for (uint32_t i = 0; i < work->started; i++)
        platform_thread_join(&work->threads[i]);
    work->started = 0;
}

OMENDB_INTERNAL void work_destroy(omendb *db)
{
    struct work_state *work = db->work;
    struct collection *collection;
    if (work == NULL)
        return;
    for (int kind = 0; kind < WORK_QUEUES; kind++) {
        while ((collection = work_pop(work, (enum work_queue_kind)kind)) != NULL)
            collection_release(collection);
    }
    platform_condition_destroy(&work->condition);
    platform_mutex_destroy(&work->mutex);
    memory_free(&db->memory, work->threads,
                work->threads == NULL ? 0 : work->thread_count * sizeof *work->threads);
    memory_free(&db->memory, work, sizeof *work);
    db->work = NULL;
}

#undef WORK_INDEX_ROWS
#undef WORK_POLL_US
#undef WORK_SEALED_TAILS

/* ==============================================================================================
 * search.c
 * ============================================================================================== */

/* search.c: one query over all sources of a version.
 *
 * Each memtable and segment is asked on its own: rows in its graph by a walk, rows not in it one by
 * one; the hits are merged by (distance, id). A source that is small is scanned as a whole: that
 * costs no more than the walk and is exact. When a walk finds fewer than k although more rows are
 * visible (deleted rows can cut a graph in two), the source is scanned: k means k. */

/* A walk computes some 10 to 20 distances for each candidate it keeps, at random places; a scan of
 * 8 for each is cheaper. */
#define SEARCH_SCAN_PER_CANDIDATE 8
#define SEARCH_STRETCH_EF         128

/* Hits of a walk over codes that are compared again by their vectors: codes of 8 bits misplace a
 * neighbour by few places. */
#define SEARCH_RERANK(k)  (3 * (k) + 20)
#define SEARCH_RERANK_RUN 16
#define SEARCH_SCAN_RUN   65536 /* rows between looks at the clock */
#define SEARCH_SCAN_EXACTLY                                                                        \
    1024 /* rows not in a graph that are not worth the detour over codes                           \
          */

/* One source of rows, whatever it is. */
struct search_source {
    struct graph_view view;          /* the vectors; count = rows that can be scanned */
    struct graph_view walk;          /* of indexed rows, maybe over codes */
    struct graph_view tail;          /* as walk, but for all rows */
    const struct code_format *codes; /* NULL: none */
    int codes_are_exact;
    uint32_t indexed;   /* the first ones, which can be walked */
    uint32_t row_limit; /* rows at or beyond are not visible */
    uint64_t commit;
    const struct tombstones *tombstones;
    const struct begin_array *begins; /* NULL: all rows below row_limit have begun */
    const struct memtable *memtable;
    struct segment *segment;
};

static int search_visible(const void *context, uint32_t row)
{
    const struct search_source *source = context;
    uint64_t end = tombstones_get(source->tombstones, row);
    if (end != 0 && end <= source->commit)
        return 0;
    return source->begins == NULL || source->begins->begin[row] <= source->commit;
}

static void search_memtable_source(const struct memtable *memtable,
                                   const struct collection *collection, uint64_t commit,
                                   struct search_source *source)
{
    memset(source, 0, sizeof *source);
    /* In this order: what is indexed is in the view, what is visible is in it, too. */
    source->indexed = memtable_has_drifted(memtable) ? 0 : atomic_load(&memtable->indexed);
    source->row_limit = memtable_visible_rows(memtable, commit);
    graph_get_view(memtable->graph, &source->view);
    source->walk = source->view;
    if (memtable->codes.step != 0.0f) {
        source->codes = &memtable->codes;
        source->codes_are_exact =
            codes_are_exact(&memtable->codes) && atomic_load(&memtable->inexact) == 0;
        source->view.vectors = memtable_vectors(memtable);
        source->view.kernel = collection->kernel;
    }
    source->tail = source->walk;
    source->commit = commit;
    source->tombstones = memtable->tombstones;
    source->memtable = memtable;
}

static void search_segment_source(struct segment *segment, uint64_t commit,
                                  struct search_source *source)
{
    memset(source, 0, sizeof *source);
    source->view = segment->full;
    source->walk = *hot_view(segment);
    source->tail = segment->graph;
    source->tail.count = segment->info.rows;
    source->codes = segment->codes.step == 0.0f ? NULL : &segment->codes;
    source->codes_are_exact =
        (segment->info.flags & SEGMENT_CODES_EXACT) != 0 && codes_are_exact(&segment->codes);
    source->indexed = segment->info.indexed_rows;
    source->row_limit = segment->info.rows;
    source->commit = commit;
    source->tombstones = segment->tombstones;
    source->begins =
        segment->begins != NULL && segment->begins->newest > commit ? segment->begins : NULL;
    source->segment = segment;
}

static int search_source_id(const struct search_source *source, uint32_t row, uint64_t *id)
{
    if (source->segment != NULL)
        return segment_id(source->segment, row, id);
    *id = memtable_id(source->memtable, row);
    return OMENDB_OK;
}

static int search_hit_before(const struct graph_hit *a, const struct graph_hit *b)
{
    return a->distance < b->distance || (a->distance == b->distance && a->row < b->row);
}

/* The distances of vectors in place of those of codes; in order again, with the first `done`, which
 * have them already. */
static int search_rerank(const struct search_source *source, const uint8_t *query,
                         struct graph_hit *hits, size_t done, size_t count)
{
    const struct graph_view *view = &source->view;
    const void *vectors[SEARCH_RERANK_RUN];
    float distances[SEARCH_RERANK_RUN];
    for (size_t first = done; first < count; first += SEARCH_RERANK_RUN) {
        size_t run = count - first < SEARCH_RERANK_RUN ? count - first : SEARCH_RERANK_RUN;
        for (size_t i = 0; i < run; i++) {
            const uint8_t *vector = rows_at(&view->vectors, hits[first + i].row);
            int code = source->segment == NULL
                           ? OMENDB_OK
                           : segment_vector(source->segment, hits[first + i].row, &vector);
            if (code != OMENDB_OK)
                return code;
            prefetch_bytes(vector, view->vectors.stride);
            vectors[i] = vector;
        }
        view->kernel->many(query, vectors, run, view->dim, distances);
        for (size_t i = 0; i < run; i++) {
            struct graph_hit hit = {distances[i], hits[first + i].row};
            size_t at = first + i;
            for (; at > 0 && search_hit_before(&hit, &hits[at - 1]); at--)
                hits[at] = hits[at - 1];
            hits[at] = hit;
        }
    }
    return OMENDB_OK;
}

/* A segment that is walked often is copied into memory in the background. */
static void search_count_walk(const struct search_request *request, struct segment *segment)
{
    if (segment == NULL ||
        atomic_load_explicit(&segment->walks, memory_order_relaxed) >= SEGMENT_WALKS_TO_HEAT ||
        atomic_fetch_add_explicit(&segment->walks, 1, memory_order_relaxed) + 1 !=
            SEGMENT_WALKS_TO_HEAT)
        return;
    if (hot_is_wanted(request->collection->db, segment))
        work_notice_heat(request->collection);
}

OMENDB_INTERNAL int search_check_deadline(const struct search_request *request)
{
    const omendb_vfs *vfs = request->collection->db->storage.vfs;
    if (request->deadline_us == 0 || vfs->now_us(vfs->context) < request->deadline_us)
        return OMENDB_OK;
    return error_set(OMENDB_TIMEOUT, "the search took longer than query.timeout_us");
}

/* The query as the codes of the source are compared with; 1 where such a distance is that of the
 * vectors. */
static int search_encode(const struct search_request *request, const struct search_source *source,
                         struct scratch *scratch, int *exact)
{
    if (scratch_reserve_code(scratch, source->walk.vectors.stride) != OMENDB_OK)
        return OMENDB_NOMEM;
    *exact = codes_encode_query(source->codes, request->vector, scratch->code) &&
             source->codes_are_exact;
    return OMENDB_OK;
}

/* Rows [first, row_limit), as search_scan, but by codes; the best are compared again. */
static int search_scan_codes(const struct search_request *request,
                             const struct search_source *source, struct scratch *scratch,
                             uint32_t first, size_t k, const struct graph_filter *filter,
                             size_t *count, struct graph_counters *counters)
{
    struct graph_hit *hits = scratch->hits + *count;
    size_t found = 0;
    int exact, code = search_encode(request, source, scratch, &exact);
    while (first < source->row_limit && code == OMENDB_OK) {
        uint32_t left = source->row_limit - first;
        uint32_t last = first + (left < SEARCH_SCAN_RUN ? left : SEARCH_SCAN_RUN);
        code = graph_scan(&source->tail, scratch->graph, scratch->code, first, last,
                          SEARCH_RERANK(k), filter, hits, &found, counters);
        if (code == OMENDB_OK)
            code = search_check_deadline(request);
        first = last;
    }
    if (code == OMENDB_OK)
        code = search_rerank(source, request->vector, scratch->hits, *count, *count + found);
    *count = *count + found < k ? *count + found : k;
    counters->distances += found;
    return code;
}

/* Rows [first, row_limit) one by one. */
static int search_scan(const struct search_request *request, const struct search_source *source,
                       struct scratch *scratch, uint32_t first, size_t k,
                       const struct graph_filter *filter, size_t *count,
                       struct graph_counters *counters)
{
    int code = OMENDB_OK;
    while (first < source->row_limit && code == OMENDB_OK) {
        uint32_t left = source->row_limit - first;
        uint32_t last = first + (left < SEARCH_SCAN_RUN ? left : SEARCH_SCAN_RUN);
        code = graph_scan(&source->view, scratch->graph, request->vector, first, last, k, filter,
                          scratch->hits, count, counters);
        if (code == OMENDB_OK)
            code = search_check_deadline(request);
        first = last;
    }
    return code;
}

/* The nearest rows that a walk finds, by the distances of their vectors. */
static int search_walk(const struct search_request *request, const struct search_source *source,
                       struct scratch *scratch, const struct graph_effort *effort,
                       const struct graph_filter *filter, size_t *count,
                       struct graph_counters *counters)
{
    const uint8_t *query = request->vector;
    int exact = 1, code = OMENDB_OK;
    search_count_walk(request, source->segment);
    if (source->codes != NULL) {
        code = search_encode(request, source, scratch, &exact);
        query = scratch->code;
    }
    if (code == OMENDB_OK)
        code = graph_search(&source->walk, scratch->graph, query, effort, filter, scratch->hits,
                            count, counters);
    if (code != OMENDB_OK || exact)
        return code;
    *count = *count < SEARCH_RERANK(effort->k) ? *count : SEARCH_RERANK(effort->k);
    counters->distances += *count;
    return search_rerank(source, request->vector, scratch->hits, 0, *count);
}

OMENDB_INTERNAL int search_walk_target(struct collection *collection,
                                       const struct search_target *target, const uint8_t *vector,
                                       struct scratch *scratch, const struct graph_effort *effort,
                                       size_t *count)
{
    struct graph_counters counters = {0, 0};
    struct search_request request = {.collection = collection, .vector = vector};
    struct search_source source;
    memset(&source, 0, sizeof source);
    source.view = target->full;
    source.walk = target->walk;
    source.codes = target->codes.step == 0.0f ? NULL : &target->codes;
    source.codes_are_exact = target->codes_are_exact;
    return search_walk(&request, &source, scratch, effort, NULL, count, &counters);
}

/* ------------------------------------------------------------------ effort */

OMENDB_INTERNAL uint64_t search_total_rows(const struct version *version, uint64_t *largest)
{
    uint64_t rows = 0;
    *largest = 0;
    for (uint32_t i = 0; i < version->memtable_count + version->segment_count; i++) {
        uint64_t more =
            i < version->memtable_count
                ? atomic_load_explicit(&version->memtables[i]->count, memory_order_acquire)
                : version->segments[i - version->memtable_count]->info.rows;
        rows += more;
        *largest = more > *largest ? more : *largest;
    }
    return rows;
}

/* What the efforts in all sources follow from. */
struct search_plan {
    const struct calibration *own; /* the collection's curve, or NULL */
    size_t largest;                /* of the efforts that curves gave; by ef: that */
};

static const struct calibration *search_curve(const struct search_plan *plan,
                                              const struct segment *segment)
{
    return plan->own != NULL ? plan->own : segment == NULL ? NULL : segment->calibration;
}

OMENDB_INTERNAL const struct calibration *search_own_curve(const struct collection *collection,
                                                           const struct version *version)
{
    const struct calibration *own =
        atomic_load_explicit(&collection->calibration, memory_order_acquire);
    uint64_t largest;
    if (own == NULL || own->count == 0 || search_total_rows(version, &largest) / 2 > own->all_rows)
        return NULL;
    for (uint32_t i = 0; i < version->segment_count; i++) {
        if (version->segments[i]->info.indexed_rows / 2 > own->rows)
            return NULL;
    }
    return own;
}

/* What ef becomes in a source: the largest gets all of it. In one with a smaller share of the rows
 * fewer of the nearest are to be expected, and they are found with less. */
static size_t search_share_of_ef(const struct search_request *request,
                                 const struct search_source *source, size_t k)
{
    size_t ef = request->ef < k ? k : request->ef;
    if (request->stretch == 0.0f && source->row_limit < request->largest_source)
        ef = k + (size_t)((double)(ef - k) *
                          sqrt((double)source->row_limit / (double)request->largest_source));
    return ef;
}

/* The effort for a recall in one source (segment NULL: a memtable), and what it promises. */
static void search_effort_for(const struct search_request *request, const struct search_plan *plan,
                              const struct segment *segment, size_t k,
                              struct calibration_answer *answer)
{
    const struct calibration *curve = search_curve(plan, segment);
    *answer = (struct calibration_answer){plan->largest, 0.0f, 0.0f, OMENDB_EXPLAIN_UNCALIBRATED};
    if (curve != NULL)
        calibration_find_effort(curve, k, request->recall, answer);
    answer->ef = answer->ef < k ? k : answer->ef;
}

/* The effort for one source, whatever was asked, and what it promises: recall 0 without a curve,
 * and with a stretch, of which none tells. */
static void search_effort(const struct search_request *request, const struct search_plan *plan,
                          const struct search_source *source, size_t k,
                          struct calibration_answer *answer)
{
    const struct calibration *curve = search_curve(plan, source->segment);
    size_t ef;
    if (request->recall > 0.0f) {
        search_effort_for(request, plan, source->segment, k, answer);
    } else {
        ef = search_share_of_ef(request, source, k);
        *answer =
            (struct calibration_answer){ef, request->stretch, 0.0f, OMENDB_EXPLAIN_UNCALIBRATED};
        if (curve != NULL && request->stretch == 0.0f)
            calibration_find_recall(curve, k, ef, answer);
    }
    answer->ef = answer->ef < source->row_limit ? answer->ef : source->row_limit;
}

static void search_make_plan(const struct search_request *request, size_t k,
                             struct search_plan *plan)
{
    const struct version *version = request->version;
    struct calibration_answer answer;
    *plan = (struct search_plan){search_own_curve(request->collection, version), request->ef};
    if (!(request->recall > 0.0f))
        return;
    size_t largest = 0;
    if (plan->own != NULL) {
        search_effort_for(request, plan, NULL, k, &answer);
        largest = answer.ef;
    }
    for (uint32_t i = 0; plan->own == NULL && i < version->segment_count; i++) {
        if (version->segments[i]->calibration == NULL)
            continue;
        search_effort_for(request, plan, version->segments[i], k, &answer);
        largest = answer.ef > largest ? answer.ef : largest;
    }
    plan->largest = largest != 0 ? largest : request->ef;
}

/* A graph was walked. */
static void search_tell(const struct calibration_answer *answer, size_t ef, omendb_explain *explain)
{
    explain->ef = ef > explain->ef ? ef : explain->ef;
    explain->warnings |= answer->warnings;
    if ((answer->warnings & OMENDB_EXPLAIN_UNCALIBRATED) == 0 && answer->recall < explain->recall)
        explain->recall = answer->recall;
}

/* Whether a walk is worth it. With a stretch ef is only a bound, far above what is kept. */
static int search_is_small(const struct search_request *request, uint32_t rows, size_t ef)
{
    if (request->stretch > 0.0f && ef > SEARCH_STRETCH_EF)
        ef = SEARCH_STRETCH_EF;
    return rows / SEARCH_SCAN_PER_CANDIDATE <= ef;
}

/* The k nearest rows of a source into scratch->hits. */
static int search_rows(const struct search_request *request, const struct search_source *source,
                       struct scratch *scratch, size_t k, const struct search_plan *plan,
                       size_t *count, struct graph_counters *counters, omendb_explain *explain)
{
    struct calibration_answer answer;
    int filtered = source->begins != NULL ||
                   atomic_load_explicit(&source->tombstones->dead, memory_order_acquire) != 0;
    struct graph_filter filter = {source->row_limit, GRAPH_NO_ROW, filtered ? search_visible : NULL,
                                  source};
    uint32_t walked = source->indexed < source->row_limit ? source->indexed : source->row_limit;
    int code = OMENDB_OK;
    search_effort(request, plan, source, k, &answer);
    *count = 0;
    if (source->row_limit == 0)
        return OMENDB_OK;
    if (request->exact || search_is_small(request, walked, answer.ef))
        walked = 0;
    if (walked != 0) {
        struct graph_filter in_graph = filter;
        const struct graph_effort effort = {.ef = answer.ef, .k = k, .stretch = answer.stretch};
        in_graph.row_limit = walked;
        code = search_walk(request, source, scratch, &effort, &in_graph, count, counters);
        *count = *count < k ? *count : k;
        explain->graph_rows += walked;
        if (*count < k && *count < walked)
            *count = walked = 0;
        else
            search_tell(&answer, answer.ef, explain);
    }
    if (code == OMENDB_OK && walked < source->row_limit) {
        int by_codes = walked != 0 && source->codes != NULL &&
                       source->row_limit - walked > SEARCH_SCAN_EXACTLY;
        code = (by_codes ? search_scan_codes : search_scan)(request, source, scratch, walked, k,
                                                            &filter, count, counters);
        explain->scanned_rows += source->row_limit - walked;
    }
    return code;
}

static int search_before(const struct search_hit *a, const struct search_hit *b)
{
    return a->distance < b->distance || (a->distance == b->distance && a->id < b->id);
}

/* Rows to ids; equal distances, which came in the order of rows, into the order of ids. Records
 * that the transaction changed, and the excluded one, are left out. */
static int search_name_hits(const struct search_request *request,
                            const struct search_source *source, struct scratch *scratch,
                            size_t count, size_t *named)
{
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        struct search_hit hit = {scratch->hits[i].distance * request->collection->distance_factor,
                                 0};
        int code = search_source_id(source, scratch->hits[i].row, &hit.id);
        if (code != OMENDB_OK)
            return code;
        if (hit.id == request->excluded_id ||
            (request->txn != NULL && txn_find(request->txn, request->collection, hit.id) != NULL))
            continue;
        size_t at = used++;
        for (; at > 0 && search_before(&hit, &scratch->found[at - 1]); at--)
            scratch->found[at] = scratch->found[at - 1];
        scratch->found[at] = hit;
    }
    *named = used;
    return OMENDB_OK;
}

/* Merges `found` into `best`, keeping the first k. */
static void search_merge(struct scratch *scratch, size_t found, size_t k, size_t *best)
{
    size_t a = 0, b = 0, out = 0;
    while (out < k && (a < *best || b < found)) {
        int take_best =
            b == found || (a < *best && search_before(&scratch->best[a], &scratch->found[b]));
        scratch->merged[out++] = take_best ? scratch->best[a++] : scratch->found[b++];
    }
    struct search_hit *merged = scratch->merged;
    scratch->merged = scratch->best;
    scratch->best = merged;
    *best = out;
}

/* The transaction's own records, compared one by one. */
static void search_own_writes(const struct search_request *request, struct scratch *scratch,
                              size_t k, size_t *best, struct graph_counters *counters)
{
    const omendb_txn *txn = request->txn;
    for (size_t i = 0; txn != NULL && i < txn->write_count; i++) {
        const struct txn_write *write = &txn->writes[i];
        if (write->collection != request->collection || write->vector == NULL ||
            write->id == request->excluded_id)
            continue;
        float distance = request->collection->kernel->pair(request->vector, write->vector,
                                                           request->collection->schema.dim);
        scratch->found[0] =
            (struct search_hit){distance * request->collection->distance_factor, write->id};
        search_merge(scratch, 1, k, best);
        counters->distances++;
    }
}

static int search_source(const struct search_request *request, const struct search_source *source,
                         struct scratch *scratch, size_t k, const struct search_plan *plan,
                         size_t *best, struct graph_counters *counters, omendb_explain *explain)
{
    size_t count, named;
    int code = search_check_deadline(request);
    if (code == OMENDB_OK)
        code = search_rows(request, source, scratch, k, plan, &count, counters, explain);
    if (code == OMENDB_OK)
        code = search_name_hits(request, source, scratch, count, &named);
    if (code == OMENDB_OK)
        search_merge(scratch, named, k, best);
    explain->segments++;
    return code;
}

OMENDB_INTERNAL int search_run(const struct search_request *asked, struct scratch *scratch,
                               uint64_t *ids, float *distances, size_t *count,
                               omendb_explain *explain)
{
    struct search_request terms = *asked, *request = &terms;
    const struct version *version = request->version;
    struct graph_counters counters = {0, 0};
    struct search_source source;
    size_t best = 0, own = request->txn == NULL ? 0 : request->txn->write_count;
    uint64_t rows = search_total_rows(version, &terms.largest_source) + own;
    /* Each hit that is left out by id takes a place of its own. */
    size_t k = request->k < rows ? request->k : (size_t)rows;
    size_t wanted = k + own + (request->excluded_id != OMENDB_ID_AUTO);
    struct search_plan plan;
    search_make_plan(request, wanted, &plan);
    size_t ef = plan.largest > wanted ? plan.largest : wanted;
    *count = 0;
    explain->recall = 1.0f;
    int code = scratch_reserve(scratch, ef + 1 + SEARCH_RERANK(wanted), wanted + 1, 0);
    for (uint32_t i = 0; i < version->memtable_count && code == OMENDB_OK; i++) {
        search_memtable_source(version->memtables[i], request->collection, request->commit,
                               &source);
        code = search_source(request, &source, scratch, wanted, &plan, &best, &counters, explain);
    }
    for (uint32_t i = 0; i < version->segment_count && code == OMENDB_OK; i++) {
        search_segment_source(version->segments[i], request->commit, &source);
        code = search_source(request, &source, scratch, wanted, &plan, &best, &counters, explain);
    }
    if (code != OMENDB_OK)
        return code;
    search_own_writes(request, scratch, wanted, &best, &counters);
    for (size_t i = 0; i < best && i < k; i++) {
        if (request->use_radius && !(scratch->best[i].distance <= request->radius))
            break;
        ids[i] = scratch->best[i].id;
        if (distances != NULL)
            distances[i] = scratch->best[i].distance;
        *count = i + 1;
    }
    explain->expanded += counters.expanded;
    explain->distances += counters.distances;
    if ((explain->warnings & OMENDB_EXPLAIN_UNCALIBRATED) != 0 && explain->recall == 1.0f)
        explain->recall = 0.0f;
    return OMENDB_OK;
}

#undef SEARCH_SCAN_PER_CANDIDATE
#undef SEARCH_STRETCH_EF
#undef SEARCH_RERANK
#undef SEARCH_RERANK_RUN
#undef SEARCH_SCAN_RUN
#undef SEARCH_SCAN_EXACTLY

/* ==============================================================================================
 * rows.c
 * ============================================================================================== */

/* rows.c: the cursor of omendb_scan. It holds the version and a sorted list of (id, source, row),
 * made at the beginning: a source is a memtable, a segment, or the transaction's own changes. */

/* ==============================================================================================
 * rows.h
 * ============================================================================================== */

/* rows.h: cursors. */
#ifndef OMENDB_ROWS_H
#define OMENDB_ROWS_H

OMENDB_INTERNAL int rows_open(struct collection *collection, omendb_txn *txn, uint64_t from,
                              uint64_t to, omendb_rows **rows);
/* OMENDB_INVALID, without a sentence: the vector cannot be given as this type. */
OMENDB_INTERNAL int rows_next(omendb_rows *rows, uint64_t *id, int vector_type, void *vector);
OMENDB_INTERNAL void rows_free(omendb_rows *rows);
OMENDB_INTERNAL int rows_is_valid(const omendb_rows *rows);
OMENDB_INTERNAL omendb *rows_database(const omendb_rows *rows);
OMENDB_INTERNAL const struct collection *rows_collection(const omendb_rows *rows);

#endif

/* rows.c, continued */

#define ROWS_OWN UINT32_MAX /* source: a change of the transaction */

struct rows_entry {
    uint64_t id;
    uint32_t source; /* memtables first, then segments */
    uint32_t row;
};

struct omendb_rows {
    uint32_t magic;
    omendb *db;
    struct collection *collection;
    struct version *version;
    omendb_txn *txn; /* NULL: none */
    struct txn_cursor cursor;
    struct rows_entry *entries;
    size_t count, capacity, next;
};

static int rows_compare(const void *left, const void *right)
{
    const struct rows_entry *a = left, *b = right;
    return a->id < b->id ? -1 : a->id > b->id;
}

static int rows_add(struct omendb_rows *rows, uint64_t id, uint32_t source, uint32_t row)
{
    if (rows->count == rows->capacity) {
        size_t capacity = rows->capacity * 2 + 64;
        struct rows_entry *entries =
            memory_resize(&rows->db->memory, rows->entries, rows->capacity * sizeof *entries,
                          memory_multiply(capacity, sizeof *entries));
        if (entries == NULL)
            return OMENDB_NOMEM;
        rows->entries = entries;
        rows->capacity = capacity;
    }
    rows->entries[rows->count++] = (struct rows_entry){id, source, row};
    return OMENDB_OK;
}

static int rows_add_memtable(struct omendb_rows *rows, uint32_t source, uint64_t commit,
                             uint64_t from, uint64_t to)
{
    const struct memtable *memtable = rows->version->memtables[source];
    uint32_t limit = memtable_visible_rows(memtable, commit);
    int code = OMENDB_OK;
    for (uint32_t row = 0; row < limit && code == OMENDB_OK; row++) {
        uint64_t id = memtable_id(memtable, row), end = tombstones_get(memtable->tombstones, row);
        if (id >= from && id <= to && (end == 0 || end > commit) &&
            txn_find(rows->txn, rows->collection, id) == NULL)
            code = rows_add(rows, id, source, row);
    }
    return code;
}

static int rows_add_segment(struct omendb_rows *rows, uint32_t index, uint64_t commit,
                            uint64_t from, uint64_t to)
{
    const struct segment *segment = rows->version->segments[index];
    int code = OMENDB_OK;
    if (segment->info.smallest_id > to || segment->info.largest_id < from)
        return OMENDB_OK;
    for (uint32_t row = 0; row < segment->info.rows && code == OMENDB_OK; row++) {
        uint64_t id;
        code = segment_id(segment, row, &id);
        if (code == OMENDB_OK && id >= from && id <= to &&
            segment_row_visible(segment, row, commit) &&
            txn_find(rows->txn, rows->collection, id) == NULL)
            code = rows_add(rows, id, rows->version->memtable_count + index, row);
    }
    return code;
}

static int rows_add_own(struct omendb_rows *rows, uint64_t from, uint64_t to)
{
    int code = OMENDB_OK;
    for (size_t i = 0; rows->txn != NULL && i < rows->txn->write_count && code == OMENDB_OK; i++) {
        const struct txn_write *write = &rows->txn->writes[i];
        if (write->collection == rows->collection && write->vector != NULL && write->id >= from &&
            write->id <= to)
            code = rows_add(rows, write->id, ROWS_OWN, (uint32_t)i);
    }
    return code;
}

OMENDB_INTERNAL int rows_open(struct collection *collection, omendb_txn *txn, uint64_t from,
                              uint64_t to, omendb_rows **rows)
{
    omendb *db = collection->db;
    uint64_t commit;
    int code = OMENDB_OK;
    *rows = NULL;
    omendb_rows *made = memory_zalloc(&db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->magic = ROWS_MAGIC;
    made->db = db;
    made->collection = collection_reference(collection);
    made->version = version_acquire_newest(collection, &commit);
    made->txn = txn;
    if (made->txn != NULL)
        txn_add_cursor(made->txn, &made->cursor);
    commit = txn != NULL ? txn->snapshot : commit;
    for (uint32_t i = 0; i < made->version->memtable_count && code == OMENDB_OK; i++)
        code = rows_add_memtable(made, i, commit, from, to);
    for (uint32_t i = 0; i < made->version->segment_count && code == OMENDB_OK; i++)
        code = rows_add_segment(made, i, commit, from, to);
    if (code == OMENDB_OK)
        code = rows_add_own(made, from, to);
    if (code != OMENDB_OK) {
        rows_free(made);
        return code;
    }
    if (made->count > 1)
        sort_array(made->entries, made->count, sizeof *made->entries, rows_compare);
    atomic_fetch_add(&db->children, 1);
    atomic_fetch_add(&db->open_cursors, 1);
    *rows = made;
    return OMENDB_OK;
}

static int rows_vector(const omendb_rows *rows, const struct rows_entry *entry,
                       const uint8_t **vector)
{
    const struct version *version = rows->version;
    if (entry->source == ROWS_OWN) {
        *vector = rows->txn->writes[entry->row].vector;
        return *vector != NULL
                   ? OMENDB_OK
                   : error_set(OMENDB_NOTFOUND, "id %llu was deleted by this transaction",
                               (unsigned long long)entry->id);
    }
    if (entry->source < version->memtable_count) {
        *vector = memtable_vector(version->memtables[entry->source], entry->row);
        return OMENDB_OK;
    }
    return segment_vector(version->segments[entry->source - version->memtable_count], entry->row,
                          vector);
}

OMENDB_INTERNAL int rows_next(omendb_rows *rows, uint64_t *id, int vector_type, void *vector)
{
    const uint8_t *stored;
    if (rows->cursor.ended)
        return error_set(OMENDB_MISUSE, "the transaction of this cursor has ended");
    if (rows->next >= rows->count)
        return OMENDB_DONE;
    const struct rows_entry *entry = &rows->entries[rows->next];
    if (vector != NULL) {
        int code = rows_vector(rows, entry, &stored);
        if (code == OMENDB_OK && (vector_type < OMENDB_F32 || vector_type > OMENDB_B1))
            code = OMENDB_INVALID;
        if (code == OMENDB_OK)
            code = scalar_export(&rows->collection->format, stored, (omendb_scalar)vector_type,
                                 vector);
        if (code != OMENDB_OK)
            return code;
    }
    if (id != NULL)
        *id = entry->id;
    rows->next++;
    return OMENDB_OK;
}

OMENDB_INTERNAL void rows_free(omendb_rows *rows)
{
    rows->magic = 0;
    if (rows->txn != NULL && !rows->cursor.ended)
        txn_remove_cursor(rows->txn, &rows->cursor);
    version_release(rows->version);
    collection_release(rows->collection);
    memory_free(&rows->db->memory, rows->entries, rows->capacity * sizeof *rows->entries);
    memory_free(&rows->db->memory, rows, sizeof *rows);
}

OMENDB_INTERNAL int rows_is_valid(const omendb_rows *rows)
{
    return rows != NULL && rows->magic == ROWS_MAGIC;
}

OMENDB_INTERNAL omendb *rows_database(const omendb_rows *rows)
{
    return rows->db;
}

OMENDB_INTERNAL const struct collection *rows_collection(const omendb_rows *rows)
{
    return rows->collection;
}

#undef ROWS_OWN

/* ==============================================================================================
 * backup.c
 * ============================================================================================== */

/* backup.c: a consistent copy while readers and writers go on.
 *
 * After a checkpoint the manifest is the database at its commit S. It is held by a shared lock, as
 * a reader of another process holds it, so that merges and checkpoints leave its files; then files
 * are copied, each copy is verified block by block, and last a manifest of the copy's own is
 * published. The copy has no log. */

#define BACKUP_BUFFER_BYTES (UINT64_C(1) << 20)

struct backup {
    omendb *db;
    struct storage to;
    struct storage_file lock; /* on the source's manifest */
    struct manifest manifest;
    uint8_t *buffer;
    uint64_t problems;
    uint32_t copied; /* files of the manifest that were begun */
};

/* Takes the manifest as it is and keeps its files from being collected. */
static int backup_hold(struct backup *backup)
{
    omendb *db = backup->db;
    const omendb_vfs *vfs = db->storage.vfs;
    char name[STORAGE_NAME_BYTES];
    platform_mutex_lock(&db->maintenance_mutex);
    int code = manifest_read(&db->storage, &backup->manifest);
    storage_name(STORAGE_MANIFEST, backup->manifest.number, name);
    if (code == OMENDB_OK)
        code = storage_open(&db->storage, name, OMENDB_OPEN_READ, &backup->lock);
    if (code == OMENDB_OK)
        code = vfs->lock(vfs->context, backup->lock.handle, OMENDB_LOCK_SHARED);
    platform_mutex_unlock(&db->maintenance_mutex);
    return code;
}

static int backup_any_entry(void *context, const char *name)
{
    (void)name;
    *(int *)context = 1;
    return 1;
}

static int backup_open_target(struct backup *backup, const char *path)
{
    const omendb_vfs *vfs = backup->db->in_memory ? omendb_default_vfs() : backup->db->storage.vfs;
    int used = 0;
    backup->to.vfs = vfs;
    backup->to.memory = &backup->db->memory;
    backup->to.io = OMENDB_IO_PREAD;
    backup->to.sync = OMENDB_SYNC_FULL;
    int code = vfs->open_directory(vfs->context, path, 1, &backup->to.directory);
    if (code != OMENDB_OK) {
        backup->to.directory = NULL;
        if (code == OMENDB_FORMAT)
            return error_set(code, "\"%s\" is not a directory; a backup is one", path);
        if (code == OMENDB_NOTFOUND)
            return error_set(code, "\"%s\" cannot be created: its parent directory is not there",
                             path);
        return error_set(code, "the directory \"%s\" cannot be made or opened", path);
    }
    code = vfs->list(vfs->context, backup->to.directory, backup_any_entry, &used);
    if (!used && code == OMENDB_OK)
        return OMENDB_OK;
    vfs->close_directory(vfs->context, backup->to.directory);
    backup->to.directory = NULL;
    if (!used)
        return error_set(code, "the directory \"%s\" cannot be listed", path);
    return error_set(OMENDB_EXISTS, "\"%s\" is not empty; give a new path", path);
}

static void backup_count_problem(void *context, const char *sentence)
{
    struct backup *backup = context;
    if (backup->problems++ == 0)
        error_set(OMENDB_CORRUPT, "backup: %s", sentence);
}

static int backup_verify(struct backup *backup, const struct manifest_file *file)
{
    struct segment_file *copy = NULL;
    int code = segment_file_open(&backup->to, (enum storage_kind)file->kind, file->number,
                                 file->size, file->footer_crc, &copy);
    if (code == OMENDB_OK)
        code = segment_file_check(copy, backup_count_problem, backup);
    segment_file_close(copy);
    return code == OMENDB_OK && backup->problems != 0 ? OMENDB_CORRUPT : code;
}

static int backup_copy_file(struct backup *backup, const struct manifest_file *file)
{
    struct storage *from = &backup->db->storage;
    struct storage_file source = {0}, target = {0};
    char name[STORAGE_NAME_BYTES];
    storage_name((enum storage_kind)file->kind, file->number, name);
    int code = storage_open(from, name, OMENDB_OPEN_READ, &source);
    if (code == OMENDB_OK)
        code =
            storage_open(&backup->to, name,
                         OMENDB_OPEN_WRITE | OMENDB_OPEN_CREATE | OMENDB_OPEN_EXCLUSIVE, &target);
    for (uint64_t at = 0; at < file->size && code == OMENDB_OK; at += BACKUP_BUFFER_BYTES) {
        size_t run = file->size - at < BACKUP_BUFFER_BYTES ? (size_t)(file->size - at)
                                                           : (size_t)BACKUP_BUFFER_BYTES;
        code = storage_read(from, &source, at, backup->buffer, run);
        if (code == OMENDB_OK)
            code = storage_write(&backup->to, &target, at, backup->buffer, run);
    }
    if (code == OMENDB_OK)
        code = storage_sync(&backup->to, &target);
    storage_close(from, &source);
    int closed = storage_close(&backup->to, &target);
    code = code == OMENDB_OK ? closed : code;
    return code == OMENDB_OK ? backup_verify(backup, file) : code;
}

static int backup_copy(struct backup *backup)
{
    int code = OMENDB_OK;
    backup->buffer = memory_alloc(&backup->db->memory, BACKUP_BUFFER_BYTES);
    if (backup->buffer == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < backup->manifest.file_count && code == OMENDB_OK; i++) {
        code = backup_copy_file(backup, &backup->manifest.files[i]);
        if (code != OMENDB_EXISTS) /* then it is not ours to remove */
            backup->copied = i + 1;
    }
    backup->manifest.wal_number = 0;
    if (code == OMENDB_OK)
        code = manifest_write(&backup->to, &backup->manifest);
    memory_free(&backup->db->memory, backup->buffer, BACKUP_BUFFER_BYTES);
    return code;
}

static void backup_remove(struct backup *backup)
{
    char name[STORAGE_NAME_BYTES];
    storage_unlink(&backup->to, "CURRENT");
    storage_unlink(&backup->to, "CURRENT.tmp");
    storage_name(STORAGE_MANIFEST, backup->manifest.number, name);
    storage_unlink(&backup->to, name);
    for (uint32_t i = 0; i < backup->copied; i++) {
        storage_name((enum storage_kind)backup->manifest.files[i].kind,
                     backup->manifest.files[i].number, name);
        storage_unlink(&backup->to, name);
    }
}

OMENDB_INTERNAL int backup_run(omendb *db, const char *path)
{
    struct backup backup = {.db = db};
    int code = checkpoint_run(db, 1);
    if (code == OMENDB_OK)
        code = backup_open_target(&backup, path);
    if (code == OMENDB_OK)
        code = backup_hold(&backup);
    if (code == OMENDB_OK) {
        code = backup_copy(&backup);
        if (code != OMENDB_OK) {
            /* Removing sets sentences of its own when it fails, too. */
            char text[ERROR_TEXT_BYTES];
            memcpy(text, error_text(), strlen(error_text()) + 1);
            backup_remove(&backup);
            error_adopt(code, text);
        }
    }
    storage_close(&db->storage, &backup.lock);
    if (backup.to.directory != NULL)
        backup.to.vfs->close_directory(backup.to.vfs->context, backup.to.directory);
    manifest_destroy(&db->memory, &backup.manifest);
    return code;
}

#undef BACKUP_BUFFER_BYTES

/* ==============================================================================================
 * check.c
 * ============================================================================================== */

/* check.c: every checksum and every structural invariant, while the database is in use.
 *
 * maintenance_mutex is held: the manifest and the segments stay as they are; commits and searches
 * go on. */

struct check {
    omendb *db;
    void (*report)(void *context, const char *line);
    void *context;
    uint64_t problems;
    const struct collection *collection; /* being looked at */
    const struct segment *segment;
};

static void check_problem(void *context, const char *sentence)
{
    struct check *check = context;
    char line[768];
    check->problems++;
    if (check->report == NULL)
        return;
    if (check->segment != NULL)
        snprintf(line, sizeof line, "collection \"%s\": seg-%llu, part %u: %s",
                 check->collection->name, (unsigned long long)check->segment->file->entry.number,
                 check->segment->part, sentence);
    else if (check->collection != NULL)
        snprintf(line, sizeof line, "collection \"%s\": %s", check->collection->name, sentence);
    else
        snprintf(line, sizeof line, "%s", sentence);
    check->report(check->context, line);
}

/* An error while looking is a problem, too, unless looking itself is impossible. */
static int check_error(struct check *check, int code)
{
    if (code != OMENDB_CORRUPT && code != OMENDB_FORMAT && code != OMENDB_NOTFOUND)
        return code;
    check_problem(check, error_text());
    return OMENDB_OK;
}

static int check_files(struct check *check)
{
    const struct manifest *manifest = &check->db->published;
    int code = OMENDB_OK;
    for (uint32_t i = 0; i < manifest->file_count && code == OMENDB_OK; i++) {
        const struct manifest_file *entry = &manifest->files[i];
        struct segment_file *file = NULL;
        code = segment_file_open(&check->db->storage, (enum storage_kind)entry->kind, entry->number,
                                 entry->size, entry->footer_crc, &file);
        if (code == OMENDB_OK)
            code = segment_file_check(file, check_problem, check);
        segment_file_close(file);
        code = check_error(check, code);
    }
    return code;
}

static int check_manifest(struct check *check)
{
    struct manifest manifest = {0};
    int code = manifest_read(&check->db->storage, &manifest);
    if (code == OMENDB_OK && manifest.number != check->db->published.number)
        check_problem(check, "CURRENT names another manifest than the one in use");
    manifest_destroy(&check->db->memory, &manifest);
    return check_error(check, code);
}

static int check_record(void *context, const struct wal_record *record)
{
    (void)context;
    (void)record;
    return OMENDB_OK;
}

static int check_log(struct check *check)
{
    omendb *db = check->db;
    platform_mutex_lock(&db->commit_mutex);
    uint64_t number = db->wal != NULL ? db->wal->number : 0;
    uint64_t length = db->wal != NULL ? db->wal->length : 0;
    platform_mutex_unlock(&db->commit_mutex);
    if (number == 0)
        return OMENDB_OK;
    struct wal_replay replay = {.number = number, .final_length = length};
    return check_error(check, wal_read(&db->storage, &replay, check_record, NULL));
}

/* Every row's id is found through the index and the filter, and bounded by the range of ids. */
static int check_ids(struct check *check, const struct segment *segment)
{
    for (uint32_t row = 0; row < segment->info.rows; row++) {
        uint64_t id, cursor = 0;
        uint32_t found;
        int code = segment_id(segment, row, &id);
        if (code != OMENDB_OK)
            return code;
        do {
            code = segment_find(segment, id, &cursor, &found);
        } while (code == OMENDB_OK && found != row && found != GRAPH_NO_ROW);
        if (code != OMENDB_OK)
            return code;
        if (found != row) {
            char text[128];
            snprintf(text, sizeof text,
                     "row %u has id %llu, which the index of ids does not lead to", row,
                     (unsigned long long)id);
            check_problem(check, text);
            return OMENDB_OK;
        }
    }
    return OMENDB_OK;
}

static int check_segment(struct check *check, const struct segment *segment)
{
    check->segment = segment;
    int code = blocks_touch(&segment->file->file->blocks, 0, segment->file->file->blocks.size);
    if (code == OMENDB_OK)
        code = check_ids(check, segment);
    if (code == OMENDB_OK && segment->calibration == NULL &&
        segment_section(segment->file->file, segment->part, SECTION_CALIBRATION).length != 0)
        check_problem(check, "its curve of recall is none");
    if (code == OMENDB_OK && segment->info.indexed_rows != 0)
        code = graph_check(&segment->graph, segment->info.indexed_rows, &check->db->memory,
                           check_problem, check);
    code = check_error(check, code);
    check->segment = NULL;
    return code;
}

static int check_compare_ids(const void *left, const void *right)
{
    const uint64_t *a = left, *b = right;
    return *a < *b ? -1 : *a > *b;
}

/* Ids of all visible rows; a second row of the same id would be a record with two vectors. */
static int check_unique(struct check *check, const struct version *version, uint64_t commit)
{
    struct memory *memory = &check->db->memory;
    uint64_t capacity, count = 0;
    int code = version_count(version, commit, &capacity);
    uint64_t *ids = memory_array(memory, (size_t)capacity, sizeof *ids);
    if (ids == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < version->memtable_count; i++) {
        const struct memtable *memtable = version->memtables[i];
        uint32_t rows = memtable_visible_rows(memtable, commit);
        for (uint32_t row = 0; row < rows && count < capacity; row++) {
            uint64_t end = tombstones_get(memtable->tombstones, row);
            if (end == 0 || end > commit)
                ids[count++] = memtable_id(memtable, row);
        }
    }
    for (uint32_t i = 0; i < version->segment_count && code == OMENDB_OK; i++) {
        const struct segment *segment = version->segments[i];
        for (uint32_t row = 0; row < segment->info.rows && count < capacity && code == OMENDB_OK;
             row++) {
            if (segment_row_visible(segment, row, commit))
                code = segment_id(segment, row, &ids[count++]);
        }
    }
    if (code == OMENDB_OK && count > 1)
        sort_array(ids, (size_t)count, sizeof *ids, check_compare_ids);
    for (uint64_t i = 1; i < count && code == OMENDB_OK; i++) {
        char text[96];
        if (ids[i] != ids[i - 1])
            continue;
        snprintf(text, sizeof text, "id %llu has two visible rows", (unsigned long long)ids[i]);
        check_problem(check, text);
    }
    memory_free(memory, ids, (size_t)capacity * sizeof *ids);
    return code;
}

static int check_collection(struct check *check, struct collection *collection)
{
    uint64_t commit;
    struct version *version = version_acquire_newest(collection, &commit);
    int code = OMENDB_OK;
    check->collection = collection;
    for (uint32_t i = 0; i < version->segment_count && code == OMENDB_OK; i++)
        code = check_segment(check, version->segments[i]);
    for (uint32_t i = 0; i < version->memtable_count && code == OMENDB_OK; i++) {
        struct graph_view view;
        uint32_t indexed = atomic_load(&version->memtables[i]->indexed);
        graph_get_view(version->memtables[i]->graph, &view);
        code = indexed == 0 ? OMENDB_OK
                            : graph_check(&view, indexed, &check->db->memory, check_problem, check);
    }
    if (code == OMENDB_OK)
        code = check_error(check, check_unique(check, version, commit));
    check->collection = NULL;
    version_release(version);
    return code;
}

static int check_collections(struct check *check)
{
    omendb *db = check->db;
    int code = OMENDB_OK;
    for (size_t i = 0; code == OMENDB_OK; i++) {
        platform_mutex_lock(&db->commit_mutex);
        struct collection *collection =
            i < db->catalog.count ? collection_reference(db->catalog.items[i]) : NULL;
        platform_mutex_unlock(&db->commit_mutex);
        if (collection == NULL)
            break;
        code = check_collection(check, collection);
        collection_release(collection);
    }
    return code;
}

OMENDB_INTERNAL int check_run(omendb *db, void (*report)(void *context, const char *line),
                              void *context, uint64_t *problems)
{
    struct check check = {.db = db, .report = report, .context = context};
    platform_mutex_lock(&db->maintenance_mutex);
    int code = OMENDB_OK;
    if (!db->in_memory)
        code = check_manifest(&check);
    if (code == OMENDB_OK)
        code = check_files(&check);
    if (code == OMENDB_OK)
        code = check_log(&check);
    if (code == OMENDB_OK)
        code = check_collections(&check);
    platform_mutex_unlock(&db->maintenance_mutex);
    if (problems != NULL)
        *problems = check.problems;
    return code;
}

/* ==============================================================================================
 * database.c
 * ============================================================================================== */

/* database.c: opening and closing of a database, and what a fork does to it.
 *
 * A list of the open databases of the process serves two ends. A directory is opened for writing
 * once, also where file locks are owned by the process and would let a second open pass. And fork:
 * in the child each one's lock descriptor is closed, so that a parent that dies and starts again is
 * not locked out by its child; everything else is left as it is, since other threads may have been
 * in the midst of anything, and every call finds out by the process number that it is in a child.
 */

/* ==============================================================================================
 * lifecycle.h
 * ============================================================================================== */

/* lifecycle.h: a database from open to close; the surface's way in. */
#ifndef OMENDB_LIFECYCLE_H
#define OMENDB_LIFECYCLE_H

OMENDB_INTERNAL int database_open(const char *path, const omendb_options *options, omendb **db);
OMENDB_INTERNAL int database_close(omendb *db);
OMENDB_INTERNAL void database_free(omendb *db); /* accepts a half-built one */
/* A handle that counted as a child is gone; the last one of a released database closes it. */
OMENDB_INTERNAL void database_child_done(omendb *db);

#endif

/* database.c, continued */

static pthread_mutex_t database_list_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t database_fork_once = PTHREAD_ONCE_INIT;
static omendb *database_list;

static void database_before_fork(void)
{
    pthread_mutex_lock(&database_list_mutex);
}

static void database_after_fork_in_parent(void)
{
    pthread_mutex_unlock(&database_list_mutex);
}

static void database_after_fork_in_child(void)
{
    for (omendb *db = database_list; db != NULL; db = db->next_open) {
        if (db->lock_file.handle != NULL)
            db->storage.vfs->close(db->storage.vfs->context, db->lock_file.handle);
        if (db->manifest_lock.handle != NULL)
            db->storage.vfs->close(db->storage.vfs->context, db->manifest_lock.handle);
        db->lock_file.handle = NULL;
        db->manifest_lock.handle = NULL;
    }
    pthread_mutex_unlock(&database_list_mutex);
}

static void database_register_fork(void)
{
    pthread_atfork(database_before_fork, database_after_fork_in_parent,
                   database_after_fork_in_child);
}

static void database_enlist(omendb *db)
{
    pthread_once(&database_fork_once, database_register_fork);
    pthread_mutex_lock(&database_list_mutex);
    db->next_open = database_list;
    database_list = db;
    pthread_mutex_unlock(&database_list_mutex);
}

static void database_delist(omendb *db)
{
    pthread_mutex_lock(&database_list_mutex);
    for (omendb **link = &database_list; *link != NULL; link = &(*link)->next_open) {
        if (*link == db) {
            *link = db->next_open;
            break;
        }
    }
    pthread_mutex_unlock(&database_list_mutex);
}

/* Adds the path to the sentence: last, since a long one may be cut. */
static int database_name_path(int code, const char *path)
{
    return error_set(code, "%s (\"%s\")", error_text(), path);
}

/* Claims the directory for writing in this process. */
static int database_claim(omendb *db, const char *path)
{
    const omendb_vfs *vfs = db->storage.vfs;
    char identity[sizeof db->identity] = "";
    if (db->read_only || db->in_memory ||
        vfs->identity(vfs->context, db->storage.directory, identity, sizeof identity) != OMENDB_OK)
        return OMENDB_OK; /* a vfs that cannot tell relies on its locks */
    int code = OMENDB_OK;
    pthread_mutex_lock(&database_list_mutex);
    for (const omendb *other = database_list; other != NULL; other = other->next_open) {
        /* What a parent had open is not open in this process. */
        if (other != db && other->process == db->process && other->storage.vfs == vfs &&
            strcmp(other->identity, identity) == 0)
            code = error_set(OMENDB_BUSY, "the database is open for writing in this process "
                                          "already; share that handle, or close it");
    }
    if (code == OMENDB_OK)
        memcpy(db->identity, identity, sizeof identity);
    pthread_mutex_unlock(&database_list_mutex);
    return code == OMENDB_OK ? code : database_name_path(code, path);
}

/* ------------------------------------------------------------------ making and freeing */

static int database_init_locks(omendb *db)
{
    int code = platform_mutex_init(&db->maintenance_mutex);
    if (code == OMENDB_OK)
        code = platform_mutex_init(&db->commit_mutex);
    if (code == OMENDB_OK)
        code = platform_mutex_init(&db->sync_mutex);
    if (code == OMENDB_OK)
        code = platform_mutex_init(&db->txn_mutex);
    if (code == OMENDB_OK)
        code = platform_condition_init(&db->sync_condition);
    return code;
}

static void database_free_collections(omendb *db)
{
    for (size_t i = 0; i < db->catalog.count; i++)
        collection_release(db->catalog.items[i]);
    memory_free(&db->memory, db->catalog.items, db->catalog.capacity * sizeof *db->catalog.items);
    for (size_t i = 0; i < DATABASE_SCRATCH_SLOTS; i++)
        scratch_destroy(atomic_load(&db->scratch[i]));
}

static void database_free_files(omendb *db)
{
    if (db->wal != NULL) {
        wal_close(db->wal);
        memory_free(&db->memory, db->wal, sizeof *db->wal);
    }
    manifest_destroy(&db->memory, &db->published);
    storage_close(&db->storage, &db->manifest_lock);
    /* The lock goes last: whoever gets it next finds nothing half done. Closing alone would leave
     * it to a child that was forked a moment ago and has not yet closed its copy of the descriptor.
     */
    if (db->lock_file.handle != NULL)
        db->storage.vfs->lock(db->storage.vfs->context, db->lock_file.handle, OMENDB_LOCK_NONE);
    storage_close(&db->storage, &db->lock_file);
    if (db->storage.directory != NULL)
        db->storage.vfs->close_directory(db->storage.vfs->context, db->storage.directory);
    if (db->in_memory)
        vfs_memory_destroy(&db->memory_vfs);
}

OMENDB_INTERNAL void database_free(omendb *db)
{
    struct memory outer;
    database_delist(db);
    work_stop(db);
    work_destroy(db);
    database_free_collections(db);
    database_free_files(db);
    platform_mutex_destroy(&db->maintenance_mutex);
    platform_mutex_destroy(&db->commit_mutex);
    platform_mutex_destroy(&db->sync_mutex);
    platform_mutex_destroy(&db->txn_mutex);
    platform_condition_destroy(&db->sync_condition);
    db->magic = 0;
    memory_init(&outer, &db->allocator, 0);
    memory_free_aligned(&outer, db, sizeof *db);
}

static void database_set_options(omendb *db, const omendb_options *options)
{
    db->magic = DATABASE_MAGIC;
    db->process = platform_process();
    db->read_only = options->read_only != 0;
    db->sync = options->sync;
    db->wal_limit = options->wal_limit == 0 ? UINT64_C(64) << 20 : options->wal_limit;
    if (db->wal_limit > UINT64_MAX / 4) /* twice as much is a number, too */
        db->wal_limit = UINT64_MAX / 4;
    db->tail_limit = options->tail_limit == 0 ? UINT64_C(8) << 20 : options->tail_limit;
    db->stall_timeout_us =
        (options->stall_timeout_ms == 0 ? UINT64_C(10000) : options->stall_timeout_ms) * 1000;
    db->log = options->log;
    db->log_context = options->log_context;
    db->storage.memory = &db->memory;
    db->storage.io = options->io;
    db->storage.sync = options->sync;
    db->storage.vfs = options->vfs == NULL ? omendb_default_vfs() : options->vfs;
}

/* What a checkpoint needs beside the rows that it writes: buffers of two writers and of the reader
 * of the log, and 26 bytes a row, where a row in memory takes 60 at least. What is read instead of
 * mapped is for a moment there twice. */
static uint64_t database_reserve(const omendb *db, uint64_t limit)
{
    if (limit == 0 || db->in_memory || db->read_only)
        return 0;
    return (UINT64_C(3) << 20) + limit / (db->storage.io == OMENDB_IO_MAP ? 4 : 2);
}

static int database_open_directory(omendb *db, const char *path, const omendb_options *options)
{
    if (strcmp(path, ":memory:") == 0) {
        if (options->read_only || options->must_exist)
            return error_set(OMENDB_INVALID, "\":memory:\" begins empty: it can be opened neither "
                                             "read_only nor with must_exist");
        int code = vfs_memory_create(&db->memory, &db->memory_vfs);
        if (code != OMENDB_OK)
            return code;
        db->in_memory = 1;
        db->storage.vfs = &db->memory_vfs;
    }
    int create = !options->read_only && !options->must_exist;
    int code = db->storage.vfs->open_directory(db->storage.vfs->context, path, create,
                                               &db->storage.directory);
    if (code == OMENDB_OK)
        return code;
    db->storage.directory = NULL;
    if (code == OMENDB_NOTFOUND)
        return error_set(code,
                         create ? "\"%s\" cannot be created: its parent directory is not there"
                                : "there is no database at \"%s\"",
                         path);
    if (code == OMENDB_FORMAT)
        return error_set(code, "\"%s\" is not a directory; a database is one", path);
    return error_set(code, "the directory \"%s\" cannot be opened", path);
}

static int database_recover(omendb *db, const char *path, const omendb_options *options)
{
    memory_begin_maintenance();
    int code = recover_open(db, options->must_exist != 0);
    memory_end_maintenance();
    return code == OMENDB_OK ? code : database_name_path(code, path);
}

OMENDB_INTERNAL int database_open(const char *path, const omendb_options *options, omendb **db)
{
    struct memory outer;
    *db = NULL;
    memory_init(&outer, options->allocator, 0);
    omendb *made = memory_alloc_aligned(&outer, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->allocator = outer.hooks;
    memory_init(&made->memory, options->allocator, options->memory_limit);
    database_set_options(made, options);
    database_enlist(made);
    int code = database_init_locks(made);
    if (code == OMENDB_OK)
        code = database_open_directory(made, path, options);
    if (code == OMENDB_OK)
        code = database_claim(made, path);
    made->memory.reserve = database_reserve(made, options->memory_limit);
    /* Recovery uses the queues, but no thread may run before it is done. */
    if (code == OMENDB_OK)
        code = work_create(made, made->read_only ? 0 : options->threads);
    if (code == OMENDB_OK)
        code = database_recover(made, path, options);
    if (code == OMENDB_OK)
        code = work_start(made);
    if (code != OMENDB_OK) {
        database_free(made);
        return code;
    }
    *db = made;
    return OMENDB_OK;
}

OMENDB_INTERNAL int database_close(omendb *db)
{
    int code = OMENDB_OK;
    if (db->process != platform_process()) {
        /* A thread that the child does not have may hold any lock, or wait for any condition, for
         * ever: nothing of it can be freed. */
        database_delist(db);
        db->magic = 0;
        return OMENDB_OK;
    }
    work_stop(db);
    int dirty = db->appended_commit > atomic_load(&db->checkpoint_commit);
    if (dirty && !db->read_only && !db->in_memory && !atomic_load(&db->poisoned))
        code = work_checkpoint(db, 1);
    database_free(db);
    return code;
}

OMENDB_INTERNAL void database_child_done(omendb *db)
{
    if (atomic_fetch_sub(&db->children, 1) == (DATABASE_RELEASED | 1))
        database_close(db);
}

/* ==============================================================================================
 * records.c
 * ============================================================================================== */

/* records.c: from the caller's arrays to a change: vectors converted to the stored type and
 * checked, ids copied, equal ids in one batch settled. Everything that can be refused without
 * knowing the database is refused here, before any lock is taken. */

/* ==============================================================================================
 * records.h
 * ============================================================================================== */

/* records.h: a batch of records on its way to a commit. */
#ifndef OMENDB_RECORDS_H
#define OMENDB_RECORDS_H

struct records {
    struct change change; /* its arrays belong to this object */
    uint8_t *vectors;
    uint32_t capacity;
};

/* Converts and checks. ids NULL, or all OMENDB_ID_AUTO: automatic. records_destroy also after a
 * failure. */
OMENDB_INTERNAL int records_prepare(struct collection *collection, uint32_t kind, size_t count,
                                    const uint64_t *ids, const void *vectors, uint32_t type,
                                    struct records *records);
OMENDB_INTERNAL int records_commit(struct records *records, omendb_txn *txn);
OMENDB_INTERNAL void records_destroy(struct records *records);

/* Of no batch: the sentence names no row. */
#define RECORDS_ALONE UINT64_MAX

/* Whether it is one of omendb_scalar. */
OMENDB_INTERNAL int records_check_type(uint32_t type);
/* OMENDB_INVALID: stored vectors cannot be given as `type`. */
OMENDB_INTERNAL int records_refuse_type(const struct collection *collection, int type);
/* One vector to the stored type; the sentence names `row`. */
OMENDB_INTERNAL int records_convert(const struct collection *collection, const void *vector,
                                    uint32_t type, void *out, uint64_t row);

#endif

/* records.c, continued */

#define RECORDS_MAX_BYTES (UINT64_C(1) << 30)

OMENDB_INTERNAL int records_check_type(uint32_t type)
{
    if (type <= OMENDB_B1)
        return OMENDB_OK;
    return error_set(OMENDB_INVALID,
                     "vector_type is %u; there are f32 (0), f16 (1), bf16 (2), i8 (3), u8 (4) and "
                     "b1 (5)",
                     type);
}

OMENDB_INTERNAL int records_refuse_type(const struct collection *collection, int type)
{
    const char *stored = omendb_scalar_name((int)collection->schema.scalar);
    if (type < OMENDB_F32 || type > OMENDB_B1)
        return records_check_type((uint32_t)type);
    return error_set(
        OMENDB_INVALID,
        "collection \"%s\" stores %s vectors, which cannot be given as %s; ask for f32 "
        "or %s",
        collection->name, stored, omendb_scalar_name(type), stored);
}

OMENDB_INTERNAL int records_convert(const struct collection *collection, const void *vector,
                                    uint32_t type, void *out, uint64_t row)
{
    const char *reason = "cannot be stored", *name = omendb_scalar_name((int)type);
    char place[32] = "";
    size_t position = SIZE_MAX;
    int code = records_check_type(type);
    if (code != OMENDB_OK)
        return code;
    code =
        scalar_convert(&collection->format, vector, (omendb_scalar)type, out, &reason, &position);
    if (code == OMENDB_OK)
        return code;
    if (row != RECORDS_ALONE)
        snprintf(place, sizeof place, "row %llu: ", (unsigned long long)row);
    if (position == SIZE_MAX)
        return error_set(code, "%sthe %s vector %s", place, name, reason);
    return error_set(code, "%selement %zu of the %s vector %s", place, position, name, reason);
}

static int records_convert_all(const struct collection *collection, struct records *records,
                               const void *vectors, uint32_t type)
{
    int code = records_check_type(type);
    if (code != OMENDB_OK)
        return code;
    size_t given_bytes = scalar_bytes((omendb_scalar)type, collection->schema.dim);
    for (uint32_t i = 0; i < records->change.count && code == OMENDB_OK; i++)
        code = records_convert(collection, (const uint8_t *)vectors + i * given_bytes, type,
                               records->vectors + i * collection->vector_bytes,
                               records->change.count == 1 ? RECORDS_ALONE : i);
    return code;
}

struct records_id {
    uint64_t id;
    uint32_t row;
};

static int records_compare(const void *left, const void *right)
{
    const struct records_id *a = left, *b = right;
    if (a->id != b->id)
        return a->id < b->id ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* Leaves the last of equal ids (put, delete), keeping the order of the rest. `sorted` is ascending
 * by (id, row). */
static void records_keep_last(struct records *records, const struct records_id *sorted,
                              size_t vector_bytes)
{
    uint32_t kept = 0, count = records->change.count;
    /* An id that is overtaken by a later row is marked by the one value that is no id. */
    for (uint32_t i = 1; i < count; i++) {
        if (sorted[i].id == sorted[i - 1].id)
            records->change.ids[sorted[i - 1].row] = OMENDB_ID_AUTO;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (records->change.ids[i] == OMENDB_ID_AUTO)
            continue;
        records->change.ids[kept] = records->change.ids[i];
        if (records->vectors != NULL && kept != i)
            memcpy(records->vectors + kept * vector_bytes, records->vectors + i * vector_bytes,
                   vector_bytes);
        kept++;
    }
    records->change.count = kept;
}

static int records_settle_equal_ids(struct records *records)
{
    const struct collection *collection = records->change.collection;
    struct memory *memory = &collection->db->memory;
    uint32_t count = records->change.count, ascending = 1;
    const uint64_t *ids = records->change.ids;
    while (ascending < count && ids[ascending - 1] < ids[ascending])
        ascending++;
    if (ascending >= count)
        return OMENDB_OK;
    struct records_id *sorted = memory_array(memory, count, sizeof *sorted);
    if (sorted == NULL)
        return OMENDB_NOMEM;
    for (uint32_t i = 0; i < count; i++)
        sorted[i] = (struct records_id){ids[i], i};
    sort_array(sorted, count, sizeof *sorted, records_compare);
    int code = OMENDB_OK;
    if (records->change.kind == CHANGE_ADD) {
        for (uint32_t i = 1; i < count && code == OMENDB_OK; i++) {
            if (sorted[i].id == sorted[i - 1].id)
                code =
                    error_set(OMENDB_EXISTS, "rows %u and %u of the batch have the same id %llu",
                              sorted[i - 1].row, sorted[i].row, (unsigned long long)sorted[i].id);
        }
    } else {
        records_keep_last(records, sorted, collection->vector_bytes);
    }
    memory_free(memory, sorted, count * sizeof *sorted);
    return code;
}

static int records_take_ids(struct records *records, const uint64_t *ids)
{
    uint32_t count = records->change.count, automatic = 0;
    for (uint32_t i = 0; ids != NULL && i < count; i++)
        automatic += ids[i] == OMENDB_ID_AUTO;
    if (ids == NULL || automatic == count) {
        records->change.automatic = 1;
        return OMENDB_OK;
    }
    if (automatic != 0)
        return error_set(OMENDB_INVALID,
                         "OMENDB_ID_AUTO stands in %u of %u places; give all or none", automatic,
                         count);
    memcpy(records->change.ids, ids, count * sizeof *ids);
    return records_settle_equal_ids(records);
}

OMENDB_INTERNAL int records_prepare(struct collection *collection, uint32_t kind, size_t count,
                                    const uint64_t *ids, const void *vectors, uint32_t type,
                                    struct records *records)
{
    struct memory *memory = &collection->db->memory;
    memset(records, 0, sizeof *records);
    records->change.kind = kind;
    records->change.collection = collection;
    if (count > UINT32_MAX || memory_multiply(count, collection->vector_bytes) > RECORDS_MAX_BYTES)
        return error_set(OMENDB_TOOBIG,
                         "a batch of %zu records of %zu bytes; at most 1 GiB: split it", count,
                         collection->vector_bytes);
    records->capacity = records->change.count = (uint32_t)count;
    records->change.ids = memory_array(memory, count, sizeof(uint64_t));
    if (records->change.ids == NULL)
        return OMENDB_NOMEM;
    if (kind == CHANGE_DELETE) {
        memcpy(records->change.ids, ids, count * sizeof *ids);
        return records_settle_equal_ids(records);
    }
    records->vectors = memory_array(memory, count, collection->vector_bytes);
    if (records->vectors == NULL)
        return OMENDB_NOMEM;
    records->change.vectors = records->vectors;
    int code = records_convert_all(collection, records, vectors, type);
    return code == OMENDB_OK ? records_take_ids(records, ids) : code;
}

OMENDB_INTERNAL int records_commit(struct records *records, omendb_txn *txn)
{
    if (records->change.count == 0)
        return OMENDB_OK;
    if (txn != NULL)
        return txn_apply(txn, &records->change);
    return commit_changes(records->change.collection->db, &records->change, 1, UINT64_MAX);
}

OMENDB_INTERNAL void records_destroy(struct records *records)
{
    const struct collection *collection = records->change.collection;
    struct memory *memory = &collection->db->memory;
    memory_free(memory, records->change.ids,
                records->change.ids == NULL ? 0 : records->capacity * sizeof(uint64_t));
    memory_free(memory, records->vectors,
                records->vectors == NULL ? 0 : records->capacity * collection->vector_bytes);
}

#undef RECORDS_MAX_BYTES

/* ==============================================================================================
 * api.c
 * ============================================================================================== */

/* api.c: the public calls: arguments are checked, the work is done elsewhere. */

/* ------------------------------------------------------------------ versions and structs */

OMENDB_API const char *omendb_version(void)
{
    return OMENDB_VERSION;
}

OMENDB_API int omendb_version_number(void)
{
    return OMENDB_VERSION_NUMBER;
}

OMENDB_API int omendb_abi_version(void)
{
    return OMENDB_ABI_VERSION;
}

OMENDB_API int omendb_format_version(void)
{
    return OMENDB_FORMAT_VERSION;
}

OMENDB_API const char *omendb_kernels(void)
{
    return kernels_active()->name;
}

OMENDB_API const char *omendb_scalar_name(int scalar)
{
    static const char *const names[] = {"f32", "f16", "bf16", "i8", "u8", "b1"};
    return scalar < OMENDB_F32 || scalar > OMENDB_B1 ? "unknown type" : names[scalar];
}

OMENDB_API const char *omendb_metric_name(int metric)
{
    static const char *const names[] = {"l2", "cosine", "ip", "hamming"};
    return metric < OMENDB_L2 || metric > OMENDB_HAMMING ? "unknown metric" : names[metric];
}

OMENDB_API void omendb_options_init(omendb_options *options)
{
    static const omendb_options initial = OMENDB_OPTIONS_INIT;
    if (options != NULL)
        *options = initial;
}

OMENDB_API void omendb_schema_init(omendb_schema *schema)
{
    static const omendb_schema initial = OMENDB_SCHEMA_INIT;
    if (schema != NULL)
        *schema = initial;
}

OMENDB_API void omendb_record_init(omendb_record *record)
{
    static const omendb_record initial = OMENDB_RECORD_INIT;
    if (record != NULL)
        *record = initial;
}

OMENDB_API void omendb_query_init(omendb_query *query)
{
    static const omendb_query initial = OMENDB_QUERY_INIT;
    if (query != NULL)
        *query = initial;
}

OMENDB_API void omendb_explain_init(omendb_explain *explain)
{
    static const omendb_explain initial = OMENDB_EXPLAIN_INIT;
    if (explain != NULL)
        *explain = initial;
}

OMENDB_API void omendb_stats_init(omendb_stats *stats)
{
    static const omendb_stats initial = OMENDB_STATS_INIT;
    if (stats != NULL)
        *stats = initial;
}

OMENDB_API void omendb_collection_stats_init(omendb_collection_stats *stats)
{
    static const omendb_collection_stats initial = OMENDB_COLLECTION_STATS_INIT;
    if (stats != NULL)
        *stats = initial;
}

/* ------------------------------------------------------------------ arguments */

static int api_null(const char *what)
{
    return error_set(OMENDB_MISUSE, "%s is NULL", what);
}

/* A struct that the caller fills or has filled, made with the _INIT of this header or of a later,
 * larger one. No smaller size exists yet. */
#define API_STRUCT_MAX 4096
#define API_STRETCH_EF 2000

static int api_struct(size_t size, size_t expected, const char *what)
{
    if (size >= expected && size <= API_STRUCT_MAX)
        return OMENDB_OK;
    if (size > API_STRUCT_MAX)
        return error_set(OMENDB_MISUSE,
                         "%s.struct_size is %zu: it was not set; use the _INIT macro", what, size);
    return error_set(OMENDB_MISUSE,
                     "%s.struct_size is %zu, at least %zu is needed; set it with the _INIT macro",
                     what, size, expected);
}

/* A struct that is read: what a later header has on top must be 0, for it cannot be heeded. */
static int api_struct_read(const void *given, size_t expected, const char *what)
{
    size_t size;
    memcpy(&size, given, sizeof size);
    int code = api_struct(size, expected, what);
    for (size_t at = expected; at < size && code == OMENDB_OK; at++) {
        if (((const unsigned char *)given)[at] != 0)
            return error_set(OMENDB_INVALID,
                             "%s has a field at byte %zu that version " OMENDB_VERSION
                             " does not know, and it is set",
                             what, at);
    }
    return code;
}

static int api_database(const omendb *db)
{
    if (db == NULL)
        return api_null("db");
    if (db->magic != DATABASE_MAGIC)
        return error_set(OMENDB_MISUSE, "db is not an open database");
    if (db->process != platform_process())
        return error_set(
            OMENDB_MISUSE,
            "the database was opened by the parent of this process; open it anew in the child");
    return atomic_load(&db->released) ? error_set(OMENDB_MISUSE, "the database was released")
                                      : OMENDB_OK;
}

static int api_collection(const omendb_collection *handle)
{
    if (handle == NULL)
        return api_null("collection");
    if (handle->magic != COLLECTION_MAGIC)
        return error_set(OMENDB_MISUSE, "collection is not an open collection");
    int code = api_database(handle->db);
    if (code == OMENDB_OK && atomic_load(&handle->db->half_refreshed))
        return error_set(OMENDB_IOERR, "the last omendb_refresh failed half-way; call it again");
    if (code == OMENDB_OK && atomic_load(&handle->collection->dropped))
        return error_set(OMENDB_DROPPED, "collection \"%s\" was dropped", handle->collection->name);
    return code;
}

static int api_txn(const omendb_collection *handle, const omendb_txn *txn)
{
    if (txn == NULL)
        return OMENDB_OK;
    if (txn->magic != TXN_MAGIC || txn->db != handle->db)
        return error_set(OMENDB_MISUSE, "txn is not an open transaction of this database");
    return OMENDB_OK;
}

static int api_writing(const omendb_collection *handle, const omendb_txn *txn)
{
    int code = api_collection(handle);
    if (code == OMENDB_OK)
        code = api_txn(handle, txn);
    if (code == OMENDB_OK && handle->db->read_only)
        return error_set(OMENDB_READONLY, "the database was opened read-only");
    if (code == OMENDB_OK && txn != NULL && txn->mode == OMENDB_READ_ONLY)
        return error_set(OMENDB_READONLY, "the transaction was begun read-only");
    return code;
}

/* Valid UTF-8 without control characters, 1 to 255 bytes. */
static int api_name(const char *name)
{
    if (name == NULL)
        return api_null("name");
    size_t length = strlen(name);
    if (length == 0 || length > 255)
        return error_set(OMENDB_INVALID, "a collection's name has %zu bytes; 1 to 255 are allowed",
                         length);
    for (size_t i = 0; i < length;) {
        const unsigned char *at = (const unsigned char *)name + i;
        size_t run = *at < 0x80             ? 1
                     : (*at & 0xe0) == 0xc0 ? 2
                     : (*at & 0xf0) == 0xe0 ? 3
                     : (*at & 0xf8) == 0xf0 ? 4
                                            : 0;
        int valid =
            run != 0 && *at >= 0x20 && *at != 0x7f && *at != 0xc0 && *at != 0xc1 && *at < 0xf5;
        for (size_t k = 1; k < run && valid; k++)
            valid = (at[k] & 0xc0) == 0x80;
        /* Overlong forms, surrogates, and what is beyond U+10FFFF. */
        valid = valid && !(*at == 0xe0 && at[1] < 0xa0) && !(*at == 0xed && at[1] >= 0xa0) &&
                !(*at == 0xf0 && at[1] < 0x90) && !(*at == 0xf4 && at[1] >= 0x90);
        if (!valid)
            return error_set(OMENDB_INVALID,
                             "a collection's name has a control character or bad UTF-8 at byte %zu",
                             i);
        i += run;
    }
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ database */

static int api_check_allocator(const omendb_allocator *allocator)
{
    if (allocator == NULL)
        return OMENDB_OK;
    int code = api_struct_read(allocator, sizeof *allocator, "options.allocator");
    if (code != OMENDB_OK)
        return code;
    return allocator->alloc == NULL || allocator->resize == NULL || allocator->release == NULL
               ? api_null("a function of options.allocator")
               : OMENDB_OK;
}

/* map, unmap and advise go together; without them files are read. */
static int api_check_vfs(const omendb_vfs *vfs)
{
    if (vfs == NULL)
        return OMENDB_OK;
    int code = api_struct_read(vfs, sizeof *vfs, "options.vfs");
    if (code != OMENDB_OK)
        return code;
    if (vfs->open_directory == NULL || vfs->close_directory == NULL ||
        vfs->sync_directory == NULL || vfs->list == NULL || vfs->rename == NULL ||
        vfs->unlink == NULL || vfs->open == NULL || vfs->close == NULL || vfs->size == NULL ||
        vfs->read == NULL || vfs->write == NULL || vfs->truncate == NULL || vfs->allocate == NULL ||
        vfs->sync == NULL || vfs->lock == NULL || vfs->identity == NULL || vfs->now_us == NULL ||
        (vfs->map != NULL && vfs->unmap == NULL))
        return api_null("a function of options.vfs");
    return OMENDB_OK;
}

static int api_check_options(const omendb_options *options)
{
    int code = api_struct_read(options, sizeof *options, "options");
    if (code != OMENDB_OK)
        return code;
    if (options->sync > OMENDB_SYNC_OFF)
        return error_set(OMENDB_INVALID,
                         "options.sync is %u; there are OMENDB_SYNC_FULL (0), OMENDB_SYNC_NORMAL "
                         "(1) and OMENDB_SYNC_OFF (2)",
                         options->sync);
    if (options->io > OMENDB_IO_PREAD)
        return error_set(OMENDB_INVALID,
                         "options.io is %u; there are OMENDB_IO_MAP (0) and OMENDB_IO_PREAD (1)",
                         options->io);
    if (options->memory_limit != 0 && options->memory_limit < OMENDB_MEMORY_LIMIT_MIN)
        return error_set(
            OMENDB_INVALID,
            "options.memory_limit is %llu bytes; it must be at least %llu, or 0 for none",
            (unsigned long long)options->memory_limit, (unsigned long long)OMENDB_MEMORY_LIMIT_MIN);
    if (options->threads < OMENDB_THREADS_AUTO || options->threads > 1024)
        return error_set(OMENDB_INVALID,
                         "options.threads is %d; it must be OMENDB_THREADS_AUTO or 0 to 1,024",
                         options->threads);
    code = api_check_allocator(options->allocator);
    return code == OMENDB_OK ? api_check_vfs(options->vfs) : code;
}

OMENDB_API int omendb_open(const char *path, const omendb_options *options, omendb **db)
{
    omendb_options defaults = OMENDB_OPTIONS_INIT;
    if (db == NULL)
        return api_null("db");
    *db = NULL;
    if (path == NULL)
        return api_null("path");
    if (path[0] == 0)
        return error_set(OMENDB_INVALID, "the path is empty");
    options = options == NULL ? &defaults : options;
    int code = api_check_options(options);
    return code == OMENDB_OK ? database_open(path, options, db) : code;
}

struct api_count {
    uint64_t count;
    const char *one, *many;
};

/* "1 collection and 2 cursors are open; close them first" */
static int api_busy(const struct api_count *counts, size_t kinds)
{
    char text[160] = "";
    uint64_t total = 0;
    size_t length = 0, left = 0;
    for (size_t i = 0; i < kinds; i++) {
        total += counts[i].count;
        left += counts[i].count != 0;
    }
    for (size_t i = 0; i < kinds && length < sizeof text; i++) {
        if (counts[i].count == 0)
            continue;
        left--;
        const char *before = length == 0 ? "" : left == 0 ? " and " : ", ";
        length += (size_t)snprintf(text + length, sizeof text - length, "%s%llu %s", before,
                                   (unsigned long long)counts[i].count,
                                   counts[i].count == 1 ? counts[i].one : counts[i].many);
    }
    return error_set(OMENDB_BUSY,
                     total == 1 ? "%s is open; close it first" : "%s are open; close them first",
                     text);
}

static uint64_t api_open_transactions(omendb *db)
{
    platform_mutex_lock(&db->txn_mutex);
    uint64_t open = db->open_transactions;
    platform_mutex_unlock(&db->txn_mutex);
    return open;
}

static int api_children_open(omendb *db)
{
    uint64_t transactions = api_open_transactions(db), cursors = atomic_load(&db->open_cursors);
    uint64_t children = atomic_load(&db->children), others = transactions + cursors;
    const struct api_count counts[] = {
        {children > others ? children - others : 0, "collection", "collections"},
        {transactions, "transaction", "transactions"},
        {cursors, "cursor", "cursors"},
    };
    return api_busy(counts, 3);
}

OMENDB_API int omendb_close(omendb *db)
{
    if (db == NULL)
        return OMENDB_OK;
    if (db->magic != DATABASE_MAGIC || atomic_load(&db->released))
        return error_set(OMENDB_MISUSE, "db is not an open database");
    if (atomic_load(&db->children) != 0 && db->process == platform_process())
        return api_children_open(db);
    return database_close(db);
}

OMENDB_API void omendb_release(omendb *db)
{
    if (db == NULL || db->magic != DATABASE_MAGIC)
        return;
    /* Count and mark are one number, so that exactly one thread finds the last child gone. */
    atomic_store(&db->released, 1);
    if (atomic_fetch_or(&db->children, DATABASE_RELEASED) == 0)
        database_close(db);
}

OMENDB_API int omendb_refresh(omendb *db)
{
    int code = api_database(db);
    if (code != OMENDB_OK || !db->read_only)
        return code;
    const struct api_count open = {api_open_transactions(db), "transaction", "transactions"};
    return open.count != 0 ? api_busy(&open, 1) : recover_refresh(db);
}

OMENDB_API int omendb_checkpoint(omendb *db)
{
    int code = api_database(db);
    return code == OMENDB_OK ? work_checkpoint(db, 1) : code;
}

static int api_optimize_collection(omendb *db, struct collection *collection,
                                   int (*progress)(void *context, uint64_t done, uint64_t total),
                                   void *context)
{
    int merged, code = work_merge_begin(db, progress, context);
    if (code != OMENDB_OK)
        return code;
    code = compact_run(db, &collection, 1, 1, progress, context, &merged);
    work_merge_end(db);
    return code;
}

OMENDB_API int omendb_optimize(omendb *db,
                               int (*progress)(void *context, uint64_t done, uint64_t total),
                               void *context)
{
    int code = api_database(db);
    if (code == OMENDB_OK)
        code = work_checkpoint(db, 1);
    for (size_t i = 0; code == OMENDB_OK; i++) {
        platform_mutex_lock(&db->commit_mutex);
        struct collection *collection =
            i < db->catalog.count ? collection_reference(db->catalog.items[i]) : NULL;
        platform_mutex_unlock(&db->commit_mutex);
        if (collection == NULL)
            break;
        code = api_optimize_collection(db, collection, progress, context);
        collection_release(collection);
    }
    return code == OMENDB_DONE ? OMENDB_OK : code;
}

OMENDB_API int omendb_work(omendb *db, uint64_t budget_us, int *more)
{
    int did = 1, code = api_database(db);
    if (code != OMENDB_OK)
        return code;
    const omendb_vfs *vfs = db->storage.vfs;
    uint64_t begin = vfs->now_us(vfs->context);
    do {
        code = work_step(db, &did);
    } while (code == OMENDB_OK && did &&
             (budget_us == UINT64_MAX || vfs->now_us(vfs->context) - begin < budget_us));
    if (more != NULL)
        *more = did;
    return code;
}

OMENDB_API int omendb_backup(omendb *db, const char *path)
{
    int code = api_database(db);
    if (code == OMENDB_OK && path == NULL)
        return api_null("path");
    if (code == OMENDB_OK && (path[0] == 0 || strcmp(path, ":memory:") == 0))
        return error_set(OMENDB_INVALID, "a backup needs the path of a directory, not \"%s\"",
                         path);
    if (code == OMENDB_OK && db->read_only)
        return error_set(OMENDB_READONLY, "a backup begins with a checkpoint, which a read_only "
                                          "handle cannot make; back up through the writing one");
    if (code != OMENDB_OK)
        return code;
    memory_begin_maintenance();
    code = backup_run(db, path);
    memory_end_maintenance();
    return code;
}

OMENDB_API int omendb_check(omendb *db, void (*report)(void *context, const char *line),
                            void *context, uint64_t *problems)
{
    int code = api_database(db);
    if (code != OMENDB_OK)
        return code;
    memory_begin_maintenance();
    code = check_run(db, report, context, problems);
    memory_end_maintenance();
    return code;
}

static void api_count_collections(omendb *db, omendb_stats *stats)
{
    for (size_t i = 0;; i++) {
        uint64_t commit, count = 0;
        platform_mutex_lock(&db->commit_mutex);
        struct collection *collection =
            i < db->catalog.count ? collection_reference(db->catalog.items[i]) : NULL;
        platform_mutex_unlock(&db->commit_mutex);
        if (collection == NULL)
            return;
        struct version *version = version_acquire_newest(collection, &commit);
        version_count(version, commit, &count);
        version_release(version);
        collection_release(collection);
        stats->collections++;
        stats->records += count;
    }
}

OMENDB_API int omendb_get_stats(omendb *db, omendb_stats *stats)
{
    int code = api_database(db);
    if (code != OMENDB_OK)
        return code;
    if (stats == NULL)
        return api_null("stats");
    code = api_struct(stats->struct_size, sizeof *stats, "stats");
    if (code != OMENDB_OK)
        return code;
    *stats = (omendb_stats){.struct_size = sizeof *stats};
    stats->commits = atomic_load(&db->visible_commit);
    stats->memory_bytes = atomic_load(&db->memory.used);
    stats->memory_peak_bytes = atomic_load(&db->memory.peak);
    stats->mapped_bytes = atomic_load(&db->storage.mapped_bytes);
    stats->wal_bytes = atomic_load(&db->log_bytes);
    stats->written_bytes = atomic_load(&db->storage.written_bytes);
    stats->syncs = atomic_load(&db->storage.syncs);
    stats->commit_groups = atomic_load(&db->commit_groups);
    stats->checkpoints = atomic_load(&db->checkpoints);
    stats->merges = atomic_load(&db->merges);
    stats->merges_rebuilt = atomic_load(&db->merges_rebuilt);
    stats->open_transactions = api_open_transactions(db);
    platform_mutex_lock(&db->maintenance_mutex);
    stats->file_bytes = stats->wal_bytes;
    for (uint32_t i = 0; i < db->published.file_count; i++)
        stats->file_bytes += db->published.files[i].size;
    platform_mutex_unlock(&db->maintenance_mutex);
    api_count_collections(db, stats);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ collections */

/* Fills a handle for the caller; takes both over. */
static void api_hand_out(omendb *db, struct collection *collection, omendb_collection *made,
                         omendb_collection **handle)
{
    made->magic = COLLECTION_MAGIC;
    made->db = db;
    made->collection = collection;
    atomic_fetch_add(&db->children, 1);
    *handle = made;
}

static struct collection *api_find_collection(omendb *db, const char *name)
{
    int found;
    platform_mutex_lock(&db->commit_mutex);
    size_t at = catalog_find(&db->catalog, name, &found);
    struct collection *collection = found ? collection_reference(db->catalog.items[at]) : NULL;
    platform_mutex_unlock(&db->commit_mutex);
    return collection;
}

static int api_check_collection_arguments(omendb *db, const char *name, const omendb_schema *schema,
                                          omendb_collection **handle)
{
    if (handle == NULL)
        return api_null("collection");
    *handle = NULL;
    int code = api_database(db);
    if (code == OMENDB_OK)
        code = api_name(name);
    if (code == OMENDB_OK && schema != NULL)
        code = api_struct_read(schema, sizeof *schema, "schema");
    return code;
}

OMENDB_API int omendb_collection_create(omendb *db, const char *name, const omendb_schema *schema,
                                        omendb_collection **collection)
{
    omendb_schema complete;
    struct collection *made = NULL;
    int code = api_check_collection_arguments(db, name, schema, collection);
    if (code != OMENDB_OK)
        return code;
    if (schema == NULL)
        return api_null("schema");
    code = schema_complete(schema, &complete);
    if (code == OMENDB_OK)
        code = commit_check_writable(db);
    if (code == OMENDB_OK)
        code = collection_create(db, 0, name, &complete, &made);
    if (code != OMENDB_OK)
        return code;
    /* Nothing may fail for want of memory once the collection is there. */
    struct change change = {.kind = CHANGE_CREATE, .collection = made};
    omendb_collection *handle = memory_zalloc(&db->memory, sizeof *handle);
    code = handle == NULL ? OMENDB_NOMEM : commit_changes(db, &change, 1, UINT64_MAX);
    if (code == OMENDB_OK) {
        api_hand_out(db, made, handle, collection);
        return OMENDB_OK;
    }
    memory_free(&db->memory, handle, sizeof *handle);
    collection_release(made);
    return code;
}

/* *missing = 1: there is none, and no sentence was set. */
static int api_open_collection(omendb *db, const char *name, const omendb_schema *schema,
                               omendb_collection **collection, int *missing)
{
    int code = api_check_collection_arguments(db, name, schema, collection);
    *missing = 0;
    if (code != OMENDB_OK)
        return code;
    struct collection *found = api_find_collection(db, name);
    *missing = found == NULL;
    if (found == NULL)
        return OMENDB_NOTFOUND;
    if (schema != NULL)
        code = schema_compare(&found->schema, schema, name);
    omendb_collection *handle = NULL;
    if (code == OMENDB_OK) {
        handle = memory_zalloc(&db->memory, sizeof *handle);
        code = handle == NULL ? OMENDB_NOMEM : OMENDB_OK;
    }
    if (code == OMENDB_OK)
        api_hand_out(db, found, handle, collection);
    else
        collection_release(found);
    return code;
}

OMENDB_API int omendb_collection_open(omendb *db, const char *name, const omendb_schema *schema,
                                      omendb_collection **collection)
{
    int missing, code = api_open_collection(db, name, schema, collection, &missing);
    return missing ? error_set(code, "there is no collection \"%s\"", name) : code;
}

OMENDB_API int omendb_collection_open_or_create(omendb *db, const char *name,
                                                const omendb_schema *schema,
                                                omendb_collection **collection)
{
    if (collection != NULL)
        *collection = NULL;
    if (schema == NULL)
        return api_null("schema");
    /* Somebody else may create or drop it between the two calls. */
    int missing, code = api_open_collection(db, name, schema, collection, &missing);
    for (int attempt = 0; attempt < 100 && missing; attempt++) {
        code = omendb_collection_create(db, name, schema, collection);
        missing = 0;
        if (code == OMENDB_EXISTS)
            code = api_open_collection(db, name, schema, collection, &missing);
    }
    return missing ? error_set(OMENDB_BUSY, "collection \"%s\" comes and goes; try again", name)
                   : code;
}

OMENDB_API int omendb_collection_drop(omendb *db, const char *name)
{
    int code = api_database(db);
    if (code == OMENDB_OK)
        code = api_name(name);
    if (code == OMENDB_OK)
        code = commit_check_writable(db);
    if (code != OMENDB_OK)
        return code;
    struct collection *collection = api_find_collection(db, name);
    if (collection == NULL)
        return error_set(OMENDB_NOTFOUND, "there is no collection \"%s\"", name);
    struct change change = {.kind = CHANGE_DROP, .collection = collection};
    code = commit_changes(db, &change, 1, UINT64_MAX);
    collection_release(collection);
    return code == OMENDB_DROPPED
               ? error_set(OMENDB_NOTFOUND, "there is no collection \"%s\"", name)
               : code;
}

OMENDB_API void omendb_collection_close(omendb_collection *collection)
{
    if (collection == NULL || collection->magic != COLLECTION_MAGIC ||
        collection->db->process != platform_process())
        return;
    omendb *db = collection->db;
    collection->magic = 0;
    collection_release(collection->collection);
    memory_free(&db->memory, collection, sizeof *collection);
    database_child_done(db);
}

OMENDB_API int omendb_collection_name(omendb *db, size_t index, char *name, size_t capacity)
{
    int code = api_database(db);
    if (code != OMENDB_OK)
        return code;
    if (name == NULL)
        return api_null("name");
    platform_mutex_lock(&db->commit_mutex);
    if (index >= db->catalog.count) {
        code = OMENDB_DONE;
    } else {
        size_t length = strlen(db->catalog.items[index]->name);
        if (length < capacity)
            memcpy(name, db->catalog.items[index]->name, length + 1);
        else
            code = error_set(OMENDB_INVALID, "capacity is %zu; the name needs %zu bytes", capacity,
                             length + 1);
    }
    platform_mutex_unlock(&db->commit_mutex);
    return code;
}

OMENDB_API int omendb_collection_schema(omendb_collection *collection, omendb_schema *schema)
{
    int code = api_collection(collection);
    if (code != OMENDB_OK)
        return code;
    if (schema == NULL)
        return api_null("schema");
    code = api_struct(schema->struct_size, sizeof *schema, "schema");
    if (code == OMENDB_OK)
        *schema = collection->collection->schema;
    return code;
}

/* By the curve of the collection or of the segment with the largest graph. */
static void api_promised_recall(const struct collection *collection, const struct version *version,
                                omendb_collection_stats *stats)
{
    const struct calibration *curve = search_own_curve(collection, version);
    const struct segment *largest = NULL;
    struct calibration_answer answer;
    for (uint32_t i = 0; i < version->segment_count; i++) {
        if (largest == NULL || version->segments[i]->info.indexed_rows > largest->info.indexed_rows)
            largest = version->segments[i];
    }
    if (curve == NULL && largest != NULL)
        curve = largest->calibration;
    if (curve == NULL)
        return;
    calibration_find_recall(curve, 10, collection->schema.ef < 10 ? 10 : collection->schema.ef,
                            &answer);
    stats->recall = answer.recall;
    stats->recall_queries = curve->queries;
}

OMENDB_API int omendb_collection_get_stats(omendb_collection *collection,
                                           omendb_collection_stats *stats)
{
    int code = api_collection(collection);
    if (code != OMENDB_OK)
        return code;
    if (stats == NULL)
        return api_null("stats");
    code = api_struct(stats->struct_size, sizeof *stats, "stats");
    if (code != OMENDB_OK)
        return code;
    uint64_t commit;
    struct version *version = version_acquire_newest(collection->collection, &commit);
    *stats = (omendb_collection_stats){.struct_size = sizeof *stats};
    code = version_count(version, commit, &stats->records);
    stats->unindexed_rows = version_unindexed_bytes(version, 1);
    for (uint32_t i = 0; i < version->memtable_count; i++)
        stats->memtable_rows += memtable_visible_rows(version->memtables[i], commit);
    stats->rows = stats->memtable_rows;
    for (uint32_t i = 0; i < version->segment_count; i++) {
        stats->rows += version->segments[i]->info.rows;
        stats->hot_bytes += hot_size(version->segments[i]);
        if (version->segments[i]->file->file->part_count == 1)
            stats->segment_bytes += version->segments[i]->file->entry.size;
        else
            stats->segment_bytes +=
                version->segments[i]->info.rows * (uint64_t)collection->collection->vector_bytes;
    }
    api_promised_recall(collection->collection, version, stats);
    stats->segments = version->segment_count;
    stats->next_id = atomic_load(&collection->collection->next_id);
    version_release(version);
    return code;
}

/* ------------------------------------------------------------------ transactions */

OMENDB_API int omendb_txn_begin(omendb *db, int mode, omendb_txn **txn)
{
    if (txn == NULL)
        return api_null("txn");
    *txn = NULL;
    int code = api_database(db);
    if (code == OMENDB_OK && mode != OMENDB_READ_ONLY && mode != OMENDB_READ_WRITE)
        return error_set(OMENDB_INVALID,
                         "mode is %d; it must be OMENDB_READ_ONLY or OMENDB_READ_WRITE", mode);
    return code == OMENDB_OK ? txn_begin(db, mode, txn) : code;
}

static void api_end_txn(omendb_txn *txn)
{
    omendb *db = txn->db;
    txn_end(txn);
    database_child_done(db);
}

OMENDB_API int omendb_txn_commit(omendb_txn *txn)
{
    if (txn == NULL)
        return api_null("txn");
    if (txn->magic != TXN_MAGIC)
        return error_set(OMENDB_MISUSE, "txn is not an open transaction");
    if (txn->db->process != platform_process())
        return error_set(OMENDB_MISUSE, "the transaction belongs to the parent of this process");
    uint64_t waited = 0;
    int code = txn_commit(txn);
    while (code == OMENDB_NOMEM && work_relieve(txn->db, &waited))
        code = txn_commit(txn);
    api_end_txn(txn);
    return code;
}

OMENDB_API void omendb_txn_rollback(omendb_txn *txn)
{
    if (txn != NULL && txn->magic == TXN_MAGIC && txn->db->process == platform_process())
        api_end_txn(txn);
}

/* ------------------------------------------------------------------ records */

static int api_try_write(omendb_collection *collection, omendb_txn *txn, uint32_t kind,
                         size_t count, const uint64_t *ids, const void *vectors, uint32_t type,
                         uint64_t *new_ids)
{
    struct records records;
    int code = records_prepare(collection->collection, kind, count, ids, vectors, type, &records);
    if (code == OMENDB_OK)
        code = records_commit(&records, txn);
    if (code == OMENDB_OK && new_ids != NULL) {
        if (records.change.automatic)
            memcpy(new_ids, records.change.ids, count * sizeof *new_ids);
        else if (new_ids != ids)
            memmove(new_ids, ids, count * sizeof *new_ids);
    }
    records_destroy(&records);
    return code;
}

static int api_write_batch(omendb_collection *collection, omendb_txn *txn, uint32_t kind,
                           size_t count, const uint64_t *ids, const void *vectors, uint32_t type,
                           uint64_t *new_ids)
{
    int code = api_writing(collection, txn);
    if (code != OMENDB_OK || count == 0)
        return code;
    if (vectors == NULL)
        return api_null("vectors");
    uint64_t waited = 0;
    code = api_try_write(collection, txn, kind, count, ids, vectors, type, new_ids);
    while (code == OMENDB_NOMEM && work_relieve(collection->db, &waited))
        code = api_try_write(collection, txn, kind, count, ids, vectors, type, new_ids);
    return code;
}

static int api_write_one(omendb_collection *collection, omendb_txn *txn, uint32_t kind,
                         const omendb_record *record, uint64_t *id)
{
    if (record == NULL)
        return api_null("record");
    int code = api_struct_read(record, sizeof *record, "record");
    if (code != OMENDB_OK)
        return code;
    if (record->vector == NULL)
        return api_null("record.vector");
    return api_write_batch(collection, txn, kind, 1, &record->id, record->vector,
                           record->vector_type, id);
}

OMENDB_API int omendb_add(omendb_collection *collection, omendb_txn *txn,
                          const omendb_record *record, uint64_t *id)
{
    return api_write_one(collection, txn, CHANGE_ADD, record, id);
}

OMENDB_API int omendb_add_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, const void *vectors, int vector_type,
                                uint64_t *new_ids)
{
    return api_write_batch(collection, txn, CHANGE_ADD, count, ids, vectors, (uint32_t)vector_type,
                           new_ids);
}

OMENDB_API int omendb_put(omendb_collection *collection, omendb_txn *txn,
                          const omendb_record *record, uint64_t *id)
{
    return api_write_one(collection, txn, CHANGE_PUT, record, id);
}

OMENDB_API int omendb_put_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                const uint64_t *ids, const void *vectors, int vector_type,
                                uint64_t *new_ids)
{
    return api_write_batch(collection, txn, CHANGE_PUT, count, ids, vectors, (uint32_t)vector_type,
                           new_ids);
}

static int api_try_delete(omendb_collection *collection, omendb_txn *txn, size_t count,
                          const uint64_t *ids, int skip_missing, size_t *deleted)
{
    struct records records;
    int code = records_prepare(collection->collection, CHANGE_DELETE, count, ids, NULL, OMENDB_F32,
                               &records);
    records.change.skip_missing = skip_missing;
    if (code == OMENDB_OK)
        code = records_commit(&records, txn);
    if (code == OMENDB_OK && deleted != NULL)
        *deleted = records.change.affected;
    records_destroy(&records);
    return code;
}

static int api_delete(omendb_collection *collection, omendb_txn *txn, size_t count,
                      const uint64_t *ids, int skip_missing, size_t *deleted)
{
    int code = api_writing(collection, txn);
    if (deleted != NULL)
        *deleted = 0;
    if (code != OMENDB_OK || count == 0)
        return code;
    if (ids == NULL)
        return api_null("ids");
    uint64_t waited = 0;
    code = api_try_delete(collection, txn, count, ids, skip_missing, deleted);
    while (code == OMENDB_NOMEM && work_relieve(collection->db, &waited))
        code = api_try_delete(collection, txn, count, ids, skip_missing, deleted);
    return code;
}

OMENDB_API int omendb_delete(omendb_collection *collection, omendb_txn *txn, uint64_t id)
{
    if (id == OMENDB_ID_AUTO)
        return error_set(OMENDB_NOTFOUND, "OMENDB_ID_AUTO is the id of no record");
    return api_delete(collection, txn, 1, &id, 0, NULL);
}

OMENDB_API int omendb_delete_batch(omendb_collection *collection, omendb_txn *txn, size_t count,
                                   const uint64_t *ids, size_t *deleted)
{
    return api_delete(collection, txn, count, ids, 1, deleted);
}

/* ------------------------------------------------------------------ reading */

/* The state that a call reads: the transaction's, or the newest. */
static struct version *api_version(omendb_collection *collection, const omendb_txn *txn,
                                   uint64_t *commit)
{
    if (txn == NULL)
        return version_acquire_newest(collection->collection, commit);
    *commit = txn->snapshot;
    return version_acquire(collection->collection);
}

static int api_reading(omendb_collection *collection, const omendb_txn *txn)
{
    int code = api_collection(collection);
    return code == OMENDB_OK ? api_txn(collection, txn) : code;
}

/* The stored vector of a record; points into `version` or the transaction. */
static int api_find_vector(struct collection *collection, const struct version *version,
                           uint64_t commit, const omendb_txn *txn, uint64_t id,
                           const uint8_t **vector)
{
    const struct txn_write *own = txn_find(txn, collection, id);
    struct location location = {NULL, NULL, 0};
    *vector = NULL;
    if (own != NULL) {
        *vector = own->vector;
    } else {
        int code = version_locate(version, id, commit, &location);
        if (code == OMENDB_OK && (location.memtable != NULL || location.segment != NULL))
            code = location_vector(&location, vector);
        if (code != OMENDB_OK)
            return code;
    }
    return *vector != NULL ? OMENDB_OK
                           : error_set(OMENDB_NOTFOUND, "id %llu is not in collection \"%s\"",
                                       (unsigned long long)id, collection->name);
}

OMENDB_API int omendb_get(omendb_collection *collection, omendb_txn *txn, uint64_t id,
                          int vector_type, void *vector)
{
    const uint8_t *stored;
    uint64_t commit;
    int code = api_reading(collection, txn);
    if (code != OMENDB_OK)
        return code;
    struct version *version = api_version(collection, txn, &commit);
    code = api_find_vector(collection->collection, version, commit, txn, id, &stored);
    if (code == OMENDB_OK && vector != NULL) {
        if (vector_type < OMENDB_F32 || vector_type > OMENDB_B1)
            code = OMENDB_INVALID;
        else
            code = scalar_export(&collection->collection->format, stored,
                                 (omendb_scalar)vector_type, vector);
        if (code == OMENDB_INVALID)
            records_refuse_type(collection->collection, vector_type);
    }
    version_release(version);
    return code;
}

OMENDB_API int omendb_count(omendb_collection *collection, omendb_txn *txn, uint64_t *count)
{
    uint64_t commit;
    int code = api_reading(collection, txn);
    if (code != OMENDB_OK)
        return code;
    if (count == NULL)
        return api_null("count");
    struct version *version = api_version(collection, txn, &commit);
    code = version_count(version, commit, count);
    for (size_t i = 0; txn != NULL && i < txn->write_count && code == OMENDB_OK; i++) {
        const struct txn_write *write = &txn->writes[i];
        if (write->collection != collection->collection)
            continue;
        *count += write->vector != NULL && write->added;
        *count -= write->vector == NULL && !write->added;
    }
    version_release(version);
    return code;
}

OMENDB_API int omendb_scan(omendb_collection *collection, omendb_txn *txn, uint64_t from,
                           uint64_t to, omendb_rows **rows)
{
    if (rows == NULL)
        return api_null("rows");
    *rows = NULL;
    int code = api_reading(collection, txn);
    return code == OMENDB_OK ? rows_open(collection->collection, txn, from, to, rows) : code;
}

OMENDB_API int omendb_rows_next(omendb_rows *rows, uint64_t *id, int vector_type, void *vector)
{
    if (!rows_is_valid(rows))
        return error_set(OMENDB_MISUSE, "rows is not an open cursor");
    int code = api_database(rows_database(rows));
    if (code != OMENDB_OK)
        return code;
    code = rows_next(rows, id, vector_type, vector);
    return code == OMENDB_INVALID ? records_refuse_type(rows_collection(rows), vector_type) : code;
}

OMENDB_API void omendb_rows_close(omendb_rows *rows)
{
    if (!rows_is_valid(rows))
        return;
    omendb *db = rows_database(rows);
    if (db->process != platform_process())
        return;
    rows_free(rows);
    atomic_fetch_sub(&db->open_cursors, 1);
    database_child_done(db);
}

/* ------------------------------------------------------------------ search */

static int api_check_query(omendb_collection *collection, const omendb_txn *txn,
                           const omendb_query *query, int one)
{
    int code = api_reading(collection, txn);
    if (code != OMENDB_OK)
        return code;
    if (query == NULL)
        return api_null("query");
    code = api_struct_read(query, sizeof *query, "query");
    if (code != OMENDB_OK)
        return code;
    if (query->vector == NULL && query->id == OMENDB_ID_AUTO && one)
        return error_set(OMENDB_INVALID, "query.vector is NULL and query.id is not set");
    if (query->k == 0)
        return error_set(OMENDB_INVALID, "query.k is 0; at least 1 hit must be asked for");
    if (query->ef > 100000)
        return error_set(OMENDB_INVALID, "query.ef is %u; at most 100,000: use exact", query->ef);
    if (query->stretch != 0.0f && !(query->stretch >= 1.0f && query->stretch <= FLT_MAX))
        return error_set(OMENDB_INVALID, "query.stretch is %g; it must be 0, or 1 and more",
                         (double)query->stretch);
    if (query->recall != 0.0f && !(query->recall > 0.0f && query->recall <= 1.0f))
        return error_set(OMENDB_INVALID,
                         "query.recall is %g; it must be above 0 and at most 1, or 0 to go by ef",
                         (double)query->recall);
    if (query->recall != 0.0f && (query->ef != 0 || query->stretch != 0.0f))
        return error_set(OMENDB_INVALID,
                         "query.recall is %g beside an ef of %u and a stretch of %g; set one",
                         (double)query->recall, query->ef, (double)query->stretch);
    if (query->reserved != 0)
        return error_set(OMENDB_INVALID, "query.reserved is %u; it must be 0", query->reserved);
    if (query->use_radius && isnan(query->radius))
        return error_set(OMENDB_INVALID, "query.radius is NaN");
    if (query->explain != NULL && one)
        return api_struct(query->explain->struct_size, sizeof *query->explain, "explain");
    return OMENDB_OK;
}

static void api_request(omendb_collection *collection, omendb_txn *txn, const omendb_query *query,
                        struct search_request *request)
{
    *request = (struct search_request){.collection = collection->collection,
                                       .excluded_id = OMENDB_ID_AUTO};
    request->txn = txn != NULL && txn->write_count != 0 ? txn : NULL;
    request->k = query->k;
    request->stretch = query->stretch;
    request->ef = query->ef != 0          ? query->ef
                  : query->stretch > 0.0f ? API_STRETCH_EF
                                          : collection->collection->schema.ef;
    request->exact = query->exact != 0;
    request->use_radius = query->use_radius != 0;
    request->radius = query->radius;
    request->recall = query->recall;
    if (query->timeout_us != 0) {
        const omendb_vfs *vfs = collection->db->storage.vfs;
        uint64_t now = vfs->now_us(vfs->context);
        request->deadline_us =
            query->timeout_us > UINT64_MAX - now ? UINT64_MAX : now + query->timeout_us;
    }
}

OMENDB_API int omendb_search(omendb_collection *collection, omendb_txn *txn,
                             const omendb_query *query, uint64_t *ids, float *distances,
                             size_t *count)
{
    struct search_request request;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    if (count == NULL || ids == NULL)
        return api_null(count == NULL ? "count" : "ids");
    *count = 0;
    int code = api_check_query(collection, txn, query, 1);
    if (code != OMENDB_OK)
        return code;
    omendb *db = collection->db;
    const omendb_vfs *vfs = db->storage.vfs;
    uint64_t begin = query->explain == NULL ? 0 : vfs->now_us(vfs->context);
    struct scratch *scratch = scratch_take(db);
    if (scratch == NULL)
        return OMENDB_NOMEM;
    api_request(collection, txn, query, &request);
    struct version *version = api_version(collection, txn, &request.commit);
    request.version = version;
    if (query->vector == NULL) {
        request.excluded_id = query->id;
        code = api_find_vector(collection->collection, version, request.commit, txn, query->id,
                               &request.vector);
    } else {
        code = scratch_reserve(scratch, 0, 0, collection->collection->vector_bytes);
        if (code == OMENDB_OK)
            code = records_convert(collection->collection, query->vector, query->vector_type,
                                   scratch->vector, RECORDS_ALONE);
        request.vector = scratch->vector;
    }
    if (code == OMENDB_OK)
        code = search_run(&request, scratch, ids, distances, count, &explain);
    version_release(version);
    scratch_give(db, scratch);
    if (query->explain != NULL && code == OMENDB_OK) {
        explain.time_us = vfs->now_us(vfs->context) - begin;
        *query->explain = explain;
    }
    return code;
}

struct api_batch {
    const struct search_request *request;
    const uint8_t *vectors;
    size_t vector_bytes;
    uint32_t vector_type;
    size_t count;
    uint64_t *ids;
    float *distances;
    size_t *counts;
};

static int api_search_row(const struct api_batch *batch, uint64_t index, struct scratch *scratch)
{
    struct search_request request = *batch->request;
    struct collection *collection = request.collection;
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint64_t *ids = batch->ids + index * request.k;
    float *distances = batch->distances == NULL ? NULL : batch->distances + index * request.k;
    size_t count = 0;
    int code = search_check_deadline(&request);
    if (code == OMENDB_OK)
        code = scratch_reserve(scratch, 0, 0, collection->vector_bytes);
    if (code == OMENDB_OK)
        code = records_convert(collection, batch->vectors + index * batch->vector_bytes,
                               batch->vector_type, scratch->vector, index);
    request.vector = scratch->vector;
    if (code == OMENDB_OK)
        code = search_run(&request, scratch, ids, distances, &count, &explain);
    for (size_t i = count; i < request.k; i++) {
        ids[i] = OMENDB_ID_AUTO;
        if (distances != NULL)
            distances[i] = INFINITY;
    }
    if (batch->counts != NULL)
        batch->counts[index] = count;
    return code;
}

/* Threads take the queries in runs, so that they do not meet at each. */
#define API_BATCH_RUN 16

static int api_search_run(void *context, uint64_t index)
{
    const struct api_batch *batch = context;
    omendb *db = batch->request->collection->db;
    uint64_t first = index * API_BATCH_RUN;
    uint64_t left = batch->count - first, run = left < API_BATCH_RUN ? left : API_BATCH_RUN;
    struct scratch *scratch = scratch_take(db);
    int code = scratch == NULL ? OMENDB_NOMEM : OMENDB_OK;
    for (uint64_t i = 0; i < run && code == OMENDB_OK; i++)
        code = api_search_row(batch, first + i, scratch);
    scratch_give(db, scratch);
    return code;
}

OMENDB_API int omendb_search_batch(omendb_collection *collection, omendb_txn *txn,
                                   const omendb_query *query, const void *vectors, size_t count,
                                   uint64_t *ids, float *distances, size_t *counts)
{
    struct search_request request;
    int code = api_check_query(collection, txn, query, 0);
    if (code != OMENDB_OK || count == 0)
        return code;
    if (vectors == NULL || ids == NULL)
        return api_null(vectors == NULL ? "vectors" : "ids");
    code = records_check_type(query->vector_type);
    if (code != OMENDB_OK)
        return code;
    api_request(collection, txn, query, &request);
    struct version *version = api_version(collection, txn, &request.commit);
    request.version = version;
    struct api_batch batch = {
        &request,
        vectors,
        scalar_bytes((omendb_scalar)query->vector_type, collection->collection->schema.dim),
        query->vector_type,
        count,
        ids,
        distances,
        counts};
    code = work_parallel(collection->db, (count - 1) / API_BATCH_RUN + 1, api_search_run, &batch);
    version_release(version);
    return code;
}

OMENDB_API int omendb_calibrate(omendb_collection *collection, const void *queries, size_t count,
                                int query_type,
                                int (*progress)(void *context, uint64_t done, uint64_t total),
                                void *context)
{
    int code = api_writing(collection, NULL);
    if (code != OMENDB_OK)
        return code;
    if (queries == NULL)
        return api_null("queries");
    if (count < OMENDB_CALIBRATE_MIN || count > OMENDB_CALIBRATE_MAX)
        return error_set(OMENDB_INVALID, "%zu queries; a calibration takes %d to %d", count,
                         OMENDB_CALIBRATE_MIN, OMENDB_CALIBRATE_MAX);
    struct collection *inside = collection->collection;
    uint8_t *converted = NULL;
    size_t bytes = memory_multiply(count, inside->vector_bytes);
    code = records_check_type((uint32_t)query_type);
    if (code == OMENDB_OK) {
        converted = memory_alloc(&collection->db->memory, bytes);
        code = converted == NULL ? OMENDB_NOMEM : OMENDB_OK;
    }
    size_t given = scalar_bytes((omendb_scalar)query_type, inside->schema.dim);
    for (size_t i = 0; i < count && code == OMENDB_OK; i++)
        code = records_convert(inside, (const uint8_t *)queries + i * given, (uint32_t)query_type,
                               converted + i * inside->vector_bytes, i);
    if (code == OMENDB_OK)
        code = calibrate_collection(inside, converted, (uint32_t)count, progress, context);
    if (converted != NULL)
        memory_free(&collection->db->memory, converted, bytes);
    return code;
}

#undef API_STRUCT_MAX
#undef API_STRETCH_EF
#undef API_BATCH_RUN
