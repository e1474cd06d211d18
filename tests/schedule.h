/* schedule.h: explores the schedules of a few threads. Included before omendb.c by a program that
 * includes that, it takes the place of POSIX threads there: each thread is a context of one thread
 * of the system, one of them runs at a time, and at each synchronisation point a scheduler chooses
 * which one goes on. Nothing else decides, so a schedule is its list of choices, and can be run
 * again.
 *
 * POINTS. Before a mutex is taken that has a name (schedule_name), at OMENDB_YIELD, at
 * schedule_point of the test (its file system has one before each write, sync, rename and unlink),
 * and, with SCHEDULE_ATOMICS, before each atomic operation that names no memory order. Mutexes
 * without a name block as any, but nobody is preempted there: those of a graph are taken thousands
 * of times. A point before taking is enough: what happens between letting a mutex go and the next
 * point concerns nobody else.
 *
 * EXPLORATION. Depth first over all choices, bounded by the number of preemptions, switches away
 * from a thread that could go on (Musuvathi and Qadeer: Iterative context bounding for systematic
 * testing of multithreaded programs, 2007); when a thread blocks or ends, any other may follow for
 * free. Bounds are tried from 0 on, so that the first schedule that fails has as few preemptions as
 * any. A bound that would take more than the given number of schedules is sampled: preemptions at
 * places drawn by chance.
 *
 * TIME is virtual. Who sleeps, yields or waits with a timeout goes on when nobody else can, the
 * earliest first, or as a preemption.
 *
 * FAILURES: a check of the test, an assertion or a signal, all threads blocked (each one's place is
 * told), more than SCHEDULE_STEPS points. A failing schedule is printed as `decision:choice` pairs
 * and run again with a line for each switch.
 *
 * Memory orders are not explored: all that runs here is sequentially consistent. Those are argued
 * in database.h and beside the fields, and TSan looks at them. */
#ifndef OMENDB_TEST_SCHEDULE_H
#define OMENDB_TEST_SCHEDULE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#define SCHEDULE_THREADS   8
#define SCHEDULE_STACK     ((size_t)1 << 20)
#define SCHEDULE_DECISIONS 65536
#define SCHEDULE_STEPS     100000
#define SCHEDULE_LOCALS    4096
#define SCHEDULE_NEVER     UINT64_MAX

struct schedule_mutex {
    int owner; /* thread + 1; 0: free */
    const char *name;
};

struct schedule_condition {
    int waiters; /* its address is what it is known by */
};

enum schedule_state {
    SCHEDULE_READY,
    SCHEDULE_LOCKING,
    SCHEDULE_WAITING, /* for a condition */
    SCHEDULE_SLEEPING,
    SCHEDULE_JOINING,
    SCHEDULE_DONE
};

struct schedule_thread {
    enum schedule_state state;
    const char *place;
    struct schedule_mutex *mutex; /* LOCKING; WAITING: to be taken again */
    struct schedule_condition *condition;
    uint64_t wake_us; /* SLEEPING, WAITING */
    int timed_out;
    int joined; /* JOINING: whom; 0: all bodies */
    void *(*run)(void *);
    void *argument;
    ucontext_t context;
    uint8_t *stack;
    int error;                       /* errno */
    uint8_t locals[SCHEDULE_LOCALS]; /* what is _Thread_local in the library */
    void *fake_stack, *fiber;        /* of the sanitizers */
};

struct schedule_decision {
    uint8_t chosen, count;
};

static struct {
    struct schedule_thread threads[SCHEDULE_THREADS];
    int count, current;
    int bodies;    /* threads of the scenario that have not ended */
    int exploring; /* 0: while the test prepares and checks, nobody is preempted */
    uint32_t bound, preemptions;
    uint64_t steps, clock_us;
    struct schedule_decision decisions[SCHEDULE_DECISIONS];
    size_t decided;  /* in this run */
    size_t given;    /* choices that this run repeats */
    uint64_t random; /* state of the generator that chooses further ones; 0: always the first */
    int tracing;
    int failed;
    char text[1024];
    ucontext_t explorer;
    void *explorer_fiber, *explorer_fake;
    const char *scenario;
    uint64_t schedules;
} schedule;

static int schedule_planted; /* the bug that is switched on (test_schedules_planted.sh); 0: none */

/* The library's thread-local variables stand in one section, which is swapped with the threads. The
 * linker names its ends (ELF). */
extern uint8_t __start_schedule_locals[], __stop_schedule_locals[];

/* ------------------------------------------------------------------------------------------------
 * failing */

static inline void schedule_print(FILE *out)
{
    const char *separator = "";
    for (size_t i = 0; i < schedule.decided; i++) {
        if (schedule.decisions[i].chosen == 0)
            continue;
        fprintf(out, "%s%zu:%u", separator, i, schedule.decisions[i].chosen);
        separator = ",";
    }
    if (*separator == '\0')
        fprintf(out, "none");
}

static inline void schedule_to_explorer(void)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(NULL, schedule.explorer_fake, 0);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(schedule.explorer_fiber, 0);
#endif
    setcontext(&schedule.explorer);
    abort();
}

/* Ends the run. */
static inline void schedule_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(schedule.text, sizeof schedule.text, format, arguments);
    va_end(arguments);
    schedule.failed = 1;
    schedule_to_explorer();
}

#define SCHEDULE_CHECK(condition)                                                                  \
    do {                                                                                           \
        if (!(condition))                                                                          \
            schedule_fail("%s:%d: thread %d: not true: %s", __FILE__, __LINE__, schedule.current,  \
                          #condition);                                                             \
    } while (0)

#define SCHEDULE_EQUAL(actual, expected)                                                           \
    do {                                                                                           \
        const long long schedule_actual = (long long)(actual);                                     \
        const long long schedule_expected = (long long)(expected);                                 \
        if (schedule_actual != schedule_expected)                                                  \
            schedule_fail("%s:%d: thread %d: %s is %lld and not %lld", __FILE__, __LINE__,         \
                          schedule.current, #actual, schedule_actual, schedule_expected);          \
    } while (0)

/* An assertion or a wild pointer ends the process; the schedule is told before. */
static inline void schedule_on_signal(int number)
{
    fprintf(stderr, "%s: signal %d in thread %d, schedule ", schedule.scenario, number,
            schedule.current);
    schedule_print(stderr);
    fprintf(stderr, "\n");
    _exit(3);
}

static inline void schedule_catch_signals(void)
{
    static uint8_t stack[65536];
    const stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = schedule_on_signal;
    action.sa_flags = SA_ONSTACK;
    sigaltstack(&other, NULL);
    sigaction(SIGABRT, &action, NULL);
#if !defined(__SANITIZE_ADDRESS__)
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGFPE, &action, NULL);
#endif
}

/* ------------------------------------------------------------------------------------------------
 * switching */

static inline struct schedule_thread *schedule_self(void)
{
    return &schedule.threads[schedule.current];
}

static inline void schedule_swap_locals(struct schedule_thread *from, struct schedule_thread *to)
{
    const size_t size = (size_t)(__stop_schedule_locals - __start_schedule_locals);
    if (size > SCHEDULE_LOCALS)
        abort();
    memcpy(from->locals, __start_schedule_locals, size);
    memcpy(__start_schedule_locals, to->locals, size);
    from->error = errno;
    errno = to->error;
}

static inline void schedule_switch(int next)
{
    struct schedule_thread *from = schedule_self(), *to = &schedule.threads[next];
    if (from == to)
        return;
    if (schedule.tracing)
        fprintf(stderr, "    %5llu: thread %d at \"%s\", then %d at \"%s\"\n",
                (unsigned long long)schedule.steps, schedule.current, from->place, next, to->place);
    schedule_swap_locals(from, to);
    schedule.current = next;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(from->state == SCHEDULE_DONE ? NULL : &from->fake_stack,
                                   to->stack, SCHEDULE_STACK);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to->fiber, 0);
#endif
    swapcontext(&from->context, &to->context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

/* ------------------------------------------------------------------------------------------------
 * choosing */

static inline int schedule_is_free(const struct schedule_mutex *mutex)
{
    return mutex->owner == 0;
}

static inline int schedule_can_run(const struct schedule_thread *thread)
{
    switch (thread->state) {
    case SCHEDULE_READY:
        return 1;
    case SCHEDULE_LOCKING:
        return schedule_is_free(thread->mutex);
    case SCHEDULE_JOINING:
        return thread->joined == 0 ? schedule.bodies == 0
                                   : schedule.threads[thread->joined].state == SCHEDULE_DONE;
    default:
        return 0;
    }
}

/* It could go on if time passed. */
static inline int schedule_can_wake(const struct schedule_thread *thread)
{
    return thread->state == SCHEDULE_SLEEPING ||
           (thread->state == SCHEDULE_WAITING && thread->wake_us != SCHEDULE_NEVER &&
            schedule_is_free(thread->mutex));
}

static inline uint64_t schedule_draw(uint64_t below)
{
    schedule.random ^= schedule.random << 13;
    schedule.random ^= schedule.random >> 7;
    schedule.random ^= schedule.random << 17;
    return schedule.random % below;
}

/* One of `count` options, of which the first one costs nothing. rare: a preemption, one of many. */
static inline int schedule_decide(int count, int rare)
{
    struct schedule_decision *decision = &schedule.decisions[schedule.decided];
    if (schedule.decided + 1 == SCHEDULE_DECISIONS)
        schedule_fail("more than %d decisions", SCHEDULE_DECISIONS);
    if (schedule.decided++ >= schedule.given) {
        decision->count = (uint8_t)count;
        decision->chosen = 0;
        if (schedule.random != 0 && (!rare || schedule_draw(32) == 0))
            decision->chosen = (uint8_t)schedule_draw((uint64_t)count);
    } else if (decision->count == 0 && decision->chosen < count) {
        decision->count = (uint8_t)count; /* given by hand */
    } else if (decision->count != count) {
        schedule_fail("decision %zu has %d options and had %d: the run is not repeatable",
                      schedule.decided - 1, count, decision->count);
    }
    return decision->chosen;
}

static inline void schedule_fail_blocked(void)
{
    char text[768] = "";
    size_t length = 0;
    for (int i = 0; i < schedule.count && length < sizeof text; i++) {
        const struct schedule_thread *thread = &schedule.threads[i];
        const char *what = thread->state == SCHEDULE_LOCKING   ? "wants"
                           : thread->state == SCHEDULE_WAITING ? "waits at"
                           : thread->state == SCHEDULE_JOINING ? "joins at"
                                                               : "ended at";
        length += (size_t)snprintf(text + length, sizeof text - length, "; thread %d %s %s", i,
                                   what, thread->place);
    }
    schedule_fail("deadlock%s", text);
}

static inline int schedule_first_to_wake(void)
{
    int first = -1;
    for (int i = 0; i < schedule.count; i++) {
        const struct schedule_thread *thread = &schedule.threads[i];
        if (schedule_can_wake(thread) &&
            (first < 0 || thread->wake_us < schedule.threads[first].wake_us))
            first = i;
    }
    return first;
}

/* Time passes until the thread's timeout. */
static inline void schedule_wake(struct schedule_thread *thread)
{
    if (thread->state == SCHEDULE_WAITING)
        thread->timed_out = 1;
    if (thread->state == SCHEDULE_WAITING || thread->state == SCHEDULE_SLEEPING) {
        schedule.clock_us =
            thread->wake_us > schedule.clock_us ? thread->wake_us : schedule.clock_us;
        thread->state = thread->state == SCHEDULE_WAITING ? SCHEDULE_LOCKING : SCHEDULE_READY;
    }
}

/* Lets one of those that can go on go on. */
static inline void schedule_next(void)
{
    int options[SCHEDULE_THREADS], count = 0, choice = 0;
    const int goes_on = schedule_can_run(schedule_self());
    if (++schedule.steps > SCHEDULE_STEPS)
        schedule_fail("no end after %d points", SCHEDULE_STEPS);
    if (goes_on)
        options[count++] = schedule.current;
    for (int i = 0; i < schedule.count; i++) {
        const struct schedule_thread *thread = &schedule.threads[i];
        if (i == schedule.current)
            continue;
        if (goes_on ? schedule.exploring && schedule.preemptions < schedule.bound &&
                          (schedule_can_run(thread) || schedule_can_wake(thread))
                    : schedule_can_run(thread))
            options[count++] = i;
    }
    if (count == 0 && (options[0] = schedule_first_to_wake()) < 0)
        schedule_fail_blocked();
    if (count > 1 && schedule.exploring)
        choice = schedule_decide(count, goes_on);
    schedule.preemptions += goes_on && choice != 0;
    schedule_wake(&schedule.threads[options[choice]]);
    schedule_switch(options[choice]);
}

static inline void schedule_point(const char *place)
{
    schedule_self()->place = place;
    if (schedule.exploring)
        schedule_next();
}

/* ------------------------------------------------------------------------------------------------
 * in place of POSIX threads */

static inline int schedule_mutex_init(struct schedule_mutex *mutex, const void *attributes)
{
    (void)attributes;
    mutex->owner = 0;
    mutex->name = NULL;
    return 0;
}

static inline int schedule_mutex_destroy(struct schedule_mutex *mutex)
{
    if (mutex->owner != 0)
        schedule_fail("the mutex \"%s\" is destroyed while thread %d has it",
                      mutex->name == NULL ? "" : mutex->name, mutex->owner - 1);
    return 0;
}

static inline int schedule_mutex_lock(struct schedule_mutex *mutex)
{
    struct schedule_thread *self = schedule_self();
    const char *name = mutex->name == NULL ? "a mutex" : mutex->name;
    if (mutex->owner == schedule.current + 1)
        schedule_fail("deadlock: thread %d takes \"%s\", which it has", schedule.current, name);
    if (mutex->name != NULL && schedule_is_free(mutex))
        schedule_point(name);
    while (!schedule_is_free(mutex)) {
        self->place = name;
        self->mutex = mutex;
        self->state = SCHEDULE_LOCKING;
        schedule_next();
        self->state = SCHEDULE_READY;
    }
    mutex->owner = schedule.current + 1;
    return 0;
}

static inline int schedule_mutex_unlock(struct schedule_mutex *mutex)
{
    if (mutex->owner != schedule.current + 1)
        schedule_fail("thread %d lets \"%s\" go, which it does not have", schedule.current,
                      mutex->name == NULL ? "a mutex" : mutex->name);
    mutex->owner = 0;
    return 0;
}

static inline int schedule_condition_init(struct schedule_condition *condition,
                                          const void *attributes)
{
    (void)attributes;
    condition->waiters = 0;
    return 0;
}

static inline int schedule_condition_destroy(struct schedule_condition *condition)
{
    if (condition->waiters != 0)
        schedule_fail("a condition is destroyed while %d threads wait", condition->waiters);
    return 0;
}

/* 1: until the time was over. */
static inline int schedule_wait(struct schedule_condition *condition, struct schedule_mutex *mutex,
                                uint64_t wake_us)
{
    struct schedule_thread *self = schedule_self();
    schedule_mutex_unlock(mutex);
    condition->waiters++;
    self->place = "a condition";
    self->condition = condition;
    self->mutex = mutex;
    self->wake_us = wake_us;
    self->timed_out = 0;
    self->state = SCHEDULE_WAITING;
    schedule_next();
    condition->waiters--;
    while (!schedule_is_free(mutex)) {
        self->state = SCHEDULE_LOCKING;
        schedule_next();
    }
    self->state = SCHEDULE_READY;
    mutex->owner = schedule.current + 1;
    return self->timed_out;
}

static inline int schedule_condition_wait(struct schedule_condition *condition,
                                          struct schedule_mutex *mutex)
{
    schedule_wait(condition, mutex, SCHEDULE_NEVER);
    return 0;
}

/* The time to wait until is the real one's, and unknown to the virtual one: 100 ms. */
static inline int schedule_condition_timedwait(struct schedule_condition *condition,
                                               struct schedule_mutex *mutex,
                                               const struct timespec *until)
{
    (void)until;
    return schedule_wait(condition, mutex, schedule.clock_us + 100000) ? ETIMEDOUT : 0;
}

static inline int schedule_condition_broadcast(struct schedule_condition *condition)
{
    for (int i = 0; i < schedule.count; i++) {
        struct schedule_thread *thread = &schedule.threads[i];
        if (thread->state == SCHEDULE_WAITING && thread->condition == condition)
            thread->state = SCHEDULE_LOCKING;
    }
    return 0;
}

static inline int schedule_sleep(uint64_t us)
{
    struct schedule_thread *self = schedule_self();
    self->wake_us = schedule.clock_us += us;
    self->place = "a pause";
    self->state = SCHEDULE_SLEEPING;
    schedule_next();
    return 0;
}

static inline int schedule_yield(void)
{
    return schedule_sleep(1);
}

static inline int schedule_nanosleep(const struct timespec *time, struct timespec *left)
{
    (void)left;
    return schedule_sleep((uint64_t)time->tv_sec * 1000000 + (uint64_t)time->tv_nsec / 1000);
}

/* The whole life of a thread. The first one ends the run; another one is left for good. */
static inline void schedule_thread_main(void)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
    struct schedule_thread *self = schedule_self();
    self->run(self->argument);
    if (self == &schedule.threads[0])
        schedule_to_explorer();
    self->place = "its end";
    self->state = SCHEDULE_DONE;
    schedule_next();
}

static inline int schedule_spawn(void *(*run)(void *), void *argument)
{
    if (schedule.count == SCHEDULE_THREADS)
        schedule_fail("more than %d threads", SCHEDULE_THREADS);
    const int number = schedule.count++;
    struct schedule_thread *made = &schedule.threads[number];
    uint8_t *stack = made->stack;
    void *fiber = made->fiber;
    memset(made, 0, offsetof(struct schedule_thread, context));
    memset(made->locals, 0, sizeof made->locals);
    if (stack == NULL)
        stack =
            mmap(NULL, SCHEDULE_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED)
        abort();
    made->stack = stack;
    made->fiber = fiber;
#if defined(__SANITIZE_THREAD__)
    if (fiber != NULL)
        __tsan_destroy_fiber(fiber);
    made->fiber = __tsan_create_fiber(0);
#endif
    made->run = run;
    made->argument = argument;
    made->place = "its beginning";
    getcontext(&made->context);
    made->context.uc_stack.ss_sp = stack;
    made->context.uc_stack.ss_size = SCHEDULE_STACK;
    made->context.uc_link = NULL;
    makecontext(&made->context, schedule_thread_main, 0);
    return number;
}

static inline int schedule_thread_create(pthread_t *thread, const void *attributes,
                                         void *(*run)(void *), void *argument)
{
    const int number = schedule_spawn(run, argument);
    (void)attributes;
    memset(thread, 0, sizeof *thread);
    memcpy(thread, &number, sizeof number);
    return 0;
}

static inline void schedule_join(int number)
{
    struct schedule_thread *self = schedule_self();
    self->place = "a join";
    self->joined = number;
    self->state = SCHEDULE_JOINING;
    if (!schedule_can_run(self))
        schedule_next();
    self->state = SCHEDULE_READY;
}

static inline int schedule_thread_join(pthread_t thread, void **result)
{
    int number;
    (void)result;
    memcpy(&number, &thread, sizeof number);
    schedule_join(number);
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * a scenario */

/* Gives the mutex a name, so that there is a point before it is taken. */
static inline void schedule_name(struct schedule_mutex *mutex, const char *name)
{
    mutex->name = name;
}

static inline void *schedule_body(void *argument)
{
    void (*body)(void);
    memcpy(&body, argument, sizeof body);
    body();
    schedule.bodies -= schedule.current != 0;
    return NULL;
}

/* Runs the bodies as threads, in the explored order, until all have ended. */
static inline void schedule_threads(void (*const *bodies)(void), int count)
{
    schedule.bodies = count;
    for (int i = 0; i < count; i++)
        schedule_spawn(schedule_body, (void *)(uintptr_t)&bodies[i]);
    schedule.exploring = 1;
    schedule_join(0);
    schedule.exploring = 0;
}

/* One schedule: the given choices, then first ones, or such by chance. */
static inline void schedule_run(void (*scenario)(void))
{
    volatile int back = 0;
    schedule.count = schedule.current = schedule.exploring = schedule.failed = 0;
    schedule.bodies = 0;
    schedule.preemptions = 0;
    schedule.steps = schedule.clock_us = 0;
    schedule.decided = 0;
    schedule_spawn(schedule_body, &scenario);
    memset(__start_schedule_locals, 0, (size_t)(__stop_schedule_locals - __start_schedule_locals));
#if defined(__SANITIZE_THREAD__)
    schedule.explorer_fiber = __tsan_get_current_fiber();
#endif
    getcontext(&schedule.explorer);
    if (back++ == 0) {
#if defined(__SANITIZE_ADDRESS__)
        __sanitizer_start_switch_fiber(&schedule.explorer_fake, schedule.threads[0].stack,
                                       SCHEDULE_STACK);
#endif
#if defined(__SANITIZE_THREAD__)
        __tsan_switch_to_fiber(schedule.threads[0].fiber, 0);
#endif
        setcontext(&schedule.threads[0].context);
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(schedule.explorer_fake, NULL, NULL);
#endif
    schedule.schedules++;
}

/* ------------------------------------------------------------------------------------------------
 * exploring */

/* The next list of choices in depth-first order; 0: there is none. */
static inline int schedule_advance(void)
{
    for (size_t i = schedule.decided; i-- > 0;) {
        struct schedule_decision *decision = &schedule.decisions[i];
        if (decision->chosen + 1 < decision->count) {
            decision->chosen++;
            schedule.given = i + 1;
            return 1;
        }
    }
    return 0;
}

static inline void schedule_report(void (*scenario)(void))
{
    fprintf(stderr, "%s: %s\n    schedule ", schedule.scenario, schedule.text);
    schedule_print(stderr);
    fprintf(stderr, " (bound %u, after %llu schedules); again:\n", schedule.bound,
            (unsigned long long)schedule.schedules);
    schedule.given = schedule.decided;
    schedule.random = 0;
    schedule.tracing = 1;
    schedule_run(scenario);
    schedule.tracing = 0;
    fprintf(stderr, "    %s\n", schedule.failed ? schedule.text : "it did not fail again");
    schedule.failed = 1;
}

/* All schedules of a bound, at most `most`. 1: all were run, none failed; 0: too many; -1: one
 * failed. */
static inline int schedule_explore_bound(void (*scenario)(void), uint32_t bound, uint64_t most)
{
    schedule.bound = bound;
    schedule.given = 0;
    schedule.random = 0;
    for (uint64_t i = 0; i < most; i++) {
        schedule_run(scenario);
        if (schedule.failed) {
            schedule_report(scenario);
            return -1;
        }
        if (!schedule_advance())
            return 1;
    }
    return 0;
}

/* `count` schedules of a bound, by chance. 0, or -1: one failed. */
static inline int schedule_sample(void (*scenario)(void), uint32_t bound, uint64_t count)
{
    schedule.bound = bound;
    schedule.given = 0;
    for (uint64_t i = 0; i < count; i++) {
        schedule.random = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
        schedule_run(scenario);
        if (schedule.failed) {
            schedule_report(scenario);
            return -1;
        }
    }
    return 0;
}

/* Choices as schedule_print gives them. */
static inline void schedule_replay(void (*scenario)(void), const char *text)
{
    memset(schedule.decisions, 0, sizeof schedule.decisions);
    schedule.given = 0;
    while (*text >= '0' && *text <= '9') {
        char *end;
        const size_t at = strtoull(text, &end, 10);
        if (at >= SCHEDULE_DECISIONS || *end != ':')
            break;
        schedule.decisions[at].chosen = (uint8_t)strtoul(end + 1, &end, 10);
        schedule.given = at + 1;
        text = *end == ',' ? end + 1 : end;
    }
    schedule.bound = UINT32_MAX;
    schedule.tracing = 1;
    schedule_run(scenario);
    schedule.tracing = 0;
}

/* ------------------------------------------------------------------------------------------------
 * what omendb.c is to find instead */

#define pthread_mutex_t        struct schedule_mutex
#define pthread_cond_t         struct schedule_condition
#define pthread_mutex_init     schedule_mutex_init
#define pthread_mutex_destroy  schedule_mutex_destroy
#define pthread_mutex_lock     schedule_mutex_lock
#define pthread_mutex_unlock   schedule_mutex_unlock
#define pthread_cond_init      schedule_condition_init
#define pthread_cond_destroy   schedule_condition_destroy
#define pthread_cond_wait      schedule_condition_wait
#define pthread_cond_timedwait schedule_condition_timedwait
#define pthread_cond_broadcast schedule_condition_broadcast
#define pthread_create         schedule_thread_create
#define pthread_join           schedule_thread_join
#define sched_yield            schedule_yield
#define nanosleep              schedule_nanosleep
#undef PTHREAD_MUTEX_INITIALIZER
#define PTHREAD_MUTEX_INITIALIZER                                                                  \
    {                                                                                              \
        0, NULL                                                                                    \
    }
#define _Thread_local __attribute__((section("schedule_locals")))
#define OMENDB_YIELD(place) schedule_point(place)

#if defined(SCHEDULE_ATOMICS)
#undef atomic_load
#undef atomic_store
#undef atomic_exchange
#undef atomic_fetch_add
#undef atomic_fetch_sub
#undef atomic_fetch_or
#undef atomic_compare_exchange_strong
#undef atomic_compare_exchange_weak
#define SCHEDULE_ATOMIC(call) (schedule_point(__func__), call)
#define atomic_load(at)       SCHEDULE_ATOMIC(atomic_load_explicit(at, memory_order_seq_cst))
#define atomic_store(at, value)                                                                    \
    SCHEDULE_ATOMIC(atomic_store_explicit(at, value, memory_order_seq_cst))
#define atomic_exchange(at, value)                                                                 \
    SCHEDULE_ATOMIC(atomic_exchange_explicit(at, value, memory_order_seq_cst))
#define atomic_fetch_add(at, value)                                                                \
    SCHEDULE_ATOMIC(atomic_fetch_add_explicit(at, value, memory_order_seq_cst))
#define atomic_fetch_sub(at, value)                                                                \
    SCHEDULE_ATOMIC(atomic_fetch_sub_explicit(at, value, memory_order_seq_cst))
#define atomic_fetch_or(at, value)                                                                 \
    SCHEDULE_ATOMIC(atomic_fetch_or_explicit(at, value, memory_order_seq_cst))
#define atomic_compare_exchange_strong(at, old, value)                                             \
    SCHEDULE_ATOMIC(atomic_compare_exchange_strong_explicit(at, old, value, memory_order_seq_cst,  \
                                                            memory_order_seq_cst))
#define atomic_compare_exchange_weak(at, old, value)                                               \
    SCHEDULE_ATOMIC(atomic_compare_exchange_weak_explicit(at, old, value, memory_order_seq_cst,    \
                                                          memory_order_seq_cst))
#endif

#endif
