/* parallel.h: runs the shards of a test in several processes, one a core. Header only.
 *
 * A shard is a number from which all that it does follows, so that a run is the same whatever the
 * number of processes is, and one shard can be repeated alone. The processes take the next shard
 * from a counter that they share. A shard leaves a result in memory that the parent reads.
 *
 * Invariant: the caller has no other thread and no open database when it calls parallel_run. A
 * process that dies counts as a failed shard, and its shard is named.
 *
 * It needs _DEFAULT_SOURCE (on macOS _DARWIN_C_SOURCE), defined before any header.
 *
 * Environment: OMENDB_TEST_JOBS, the number of processes; without it the cores of this machine, at
 * most PARALLEL_JOBS. With 1 nothing is forked, for a debugger. */
#ifndef OMENDB_TEST_PARALLEL_H
#define OMENDB_TEST_PARALLEL_H

#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PARALLEL_JOBS 64
#define PARALLEL_MANY 1000 /* a campaign, which tells how far it is */

/* Works on one shard. `result` is zeroed, of the size that parallel_run was told. Returns the
 * number of failures. */
typedef int (*parallel_work)(uint64_t shard, void *result, const void *argument);

struct parallel_shared {
    _Atomic uint64_t next;
    _Atomic uint64_t failures;
    _Atomic uint64_t running[PARALLEL_JOBS]; /* shard of each process, plus 1 */
};

static inline uint64_t parallel_jobs(void)
{
    const char *text = getenv("OMENDB_TEST_JOBS");
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const uint64_t jobs = text != NULL ? strtoull(text, NULL, 0) : cores > 0 ? (uint64_t)cores : 1;
    return jobs < 1 ? 1 : jobs > PARALLEL_JOBS ? PARALLEL_JOBS : jobs;
}

/* Memory that children share with their parent, zeroed. */
static inline void *parallel_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return memory;
}

/* Takes shards until there are none, or until one failed and `stop` is set. */
static inline void parallel_take(struct parallel_shared *shared, uint64_t job, uint64_t shards,
                                 int stop, parallel_work work, size_t result_bytes, void *results,
                                 const void *argument)
{
    while (!stop || atomic_load(&shared->failures) == 0) {
        const uint64_t shard = atomic_fetch_add(&shared->next, 1);
        if (shard >= shards)
            break;
        atomic_store(&shared->running[job], shard + 1);
        char *result = results == NULL ? NULL : (char *)results + shard * result_bytes;
        const int failures = work(shard, result, argument);
        if (failures > 0)
            atomic_fetch_add(&shared->failures, (uint64_t)failures);
        if (shards >= PARALLEL_MANY && shard % (PARALLEL_MANY / 10) == 0)
            printf("    shard %llu of %llu\n", (unsigned long long)shard,
                   (unsigned long long)shards);
        fflush(stdout);
    }
    atomic_store(&shared->running[job], 0);
}

static inline int parallel_wait(struct parallel_shared *shared, const pid_t *children,
                                uint64_t jobs)
{
    int lost = 0;
    for (uint64_t job = 0; job < jobs; job++) {
        int status = 0;
        if (children[job] < 0 || waitpid(children[job], &status, 0) != children[job] ||
            !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            fprintf(stderr, "a process ended with status 0x%x in shard %lld\n", (unsigned)status,
                    (long long)atomic_load(&shared->running[job]) - 1);
            lost++;
        }
    }
    return lost;
}

/* Works on shards 0 .. shards - 1.
 *
 * stop:     1: no further shard is begun once one has failed.
 * results:  of parallel_memory, shards * result_bytes, or NULL with result_bytes 0.
 * Returns the number of failures, dead processes included. */
static inline int parallel_run(uint64_t shards, int stop, parallel_work work, size_t result_bytes,
                               void *results, const void *argument)
{
    struct parallel_shared *shared = parallel_memory(sizeof *shared);
    const uint64_t wanted = parallel_jobs();
    const uint64_t jobs = wanted < shards ? wanted : shards;
    pid_t children[PARALLEL_JOBS];
    int lost = 0;
    fflush(stdout);
    fflush(stderr);
    if (jobs <= 1)
        parallel_take(shared, 0, shards, stop, work, result_bytes, results, argument);
    for (uint64_t job = 0; jobs > 1 && job < jobs; job++) {
        children[job] = fork();
        if (children[job] == 0) {
            parallel_take(shared, job, shards, stop, work, result_bytes, results, argument);
            exit(0);
        }
    }
    if (jobs > 1)
        lost = parallel_wait(shared, children, jobs);
    const uint64_t failures = atomic_load(&shared->failures) + (uint64_t)lost;
    munmap(shared, sizeof *shared);
    return failures > 1000000 ? 1000000 : (int)failures;
}

#endif
