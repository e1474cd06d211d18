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
#include "platform.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
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

/* Asking the system takes 120 ns (Xeon, virtual), which each public call would spend. Relaxed: it
 * is a number of its own, and a child begins with one thread, which set it to 0. */
static _Atomic uint64_t platform_known_process; /* 0: not known, as in a new child */
static pthread_once_t platform_process_once = PTHREAD_ONCE_INIT;
static int platform_process_is_watched;

static void platform_forget_process(void)
{
    atomic_store_explicit(&platform_known_process, 0, memory_order_relaxed);
}

static void platform_watch_process(void)
{
    platform_process_is_watched = pthread_atfork(NULL, NULL, platform_forget_process) == 0;
}

OMENDB_INTERNAL uint64_t platform_process(void)
{
    uint64_t process = atomic_load_explicit(&platform_known_process, memory_order_relaxed);
    if (OMENDB_LIKELY(process != 0))
        return process;
    pthread_once(&platform_process_once, platform_watch_process);
    process = (uint64_t)getpid();
    if (platform_process_is_watched)
        atomic_store_explicit(&platform_known_process, process, memory_order_relaxed);
    return process;
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

OMENDB_INTERNAL void *platform_map_pages(size_t size)
{
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

OMENDB_INTERNAL void platform_unmap_pages(void *pages, size_t size)
{
    const int failed = munmap(pages, size);
    assert(!failed);
    (void)failed;
}

/* For systems that refuse to give entropy (a sandbox): time, process and address, mixed as in
 * splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
OMENDB_INTERNAL void platform_random_fallback(unsigned char *bytes, size_t size)
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
