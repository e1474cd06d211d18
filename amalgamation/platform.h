/* platform.h: threads, time and processes, behind names of our own, so that one file changes for
 * another system. Files are not here: they are behind omendb_vfs (vfs_posix.c, vfs_memory.c). */
#ifndef OMENDB_PLATFORM_H
#define OMENDB_PLATFORM_H

#include "internal.h"

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
/* Zeroed pages of their own, which go back to the system at once when they are given back; NULL
 * when there are none. size: not 0. */
OMENDB_INTERNAL void *platform_map_pages(size_t size);
OMENDB_INTERNAL void platform_unmap_pages(void *pages, size_t size);
OMENDB_INTERNAL void platform_random(void *out, size_t size); /* not for secrets: salts of logs */
OMENDB_INTERNAL void platform_random_fallback(unsigned char *bytes,
                                              size_t size); /* where the system gives none */

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
