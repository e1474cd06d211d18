/* quota.c: limits of collections: what they may hold, and how often they may be asked and written.
 *
 * USAGE is two numbers of each collection, visible records and the bytes of their documents, kept
 * under commit_mutex as changes are applied: so they count what is appended and not visible yet.
 * The manifest has those bytes as of its commit, the segments tell the records, and replay goes on
 * from there; nothing is read to know them. What waiting prepared transactions will add stands with
 * those.
 *
 * RATES are token buckets of one second, each a single number: the moment at which the bucket is
 * full again (the generic cell rate algorithm of ITU-T I.371). What is asked for moves it on by the
 * time that the tokens take to come back; it is let pass when it would not be more than a second
 * ahead, or, where more is asked for than the bucket holds, when the bucket is full: that leaves a
 * debt. Searches move it by one exchange; writers have commit_mutex. The clock must not go back:
 * that of a vfs is monotonic.
 *
 * A collection that had no limits since it was opened has no memory for rates and what they count.
 */
#include "database.h"

#include <stdio.h>

#define QUOTA_TICKS  4096 /* a microsecond: a rate of four billions a second still counts */
#define QUOTA_SECOND ((uint64_t)1000000 * QUOTA_TICKS)
#define QUOTA_DEBT   (UINT64_C(1) << 62) /* ticks: 36 years */

static uint64_t quota_add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* 0 where it would be less, as after what a damaged file told. */
static uint64_t quota_subtract(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* ------------------------------------------------------------------ limits */

OMENDB_INTERNAL int quota_reserve(struct collection *collection)
{
    if (atomic_load_explicit(&collection->quota, memory_order_relaxed) != NULL)
        return OMENDB_OK;
    struct quota *made = memory_zalloc(&collection->db->memory, sizeof *made);
    if (made == NULL)
        return OMENDB_NOMEM;
    made->limits = (omendb_limits)OMENDB_LIMITS_INIT;
    atomic_store_explicit(&collection->quota, made, memory_order_release);
    return OMENDB_OK;
}

OMENDB_INTERNAL void quota_set(struct collection *collection, const omendb_limits *limits)
{
    struct quota *quota = atomic_load_explicit(&collection->quota, memory_order_relaxed);
    if (quota == NULL)
        return;
    quota->limits = *limits;
    quota->write_due = 0;
    atomic_store_explicit(&quota->query_due, 0, memory_order_relaxed);
    atomic_store_explicit(&quota->query_rate, limits->queries_per_second, memory_order_relaxed);
}

OMENDB_INTERNAL void quota_get(const struct collection *collection, omendb_limits *limits)
{
    const struct quota *quota = atomic_load_explicit(&collection->quota, memory_order_relaxed);
    *limits = (omendb_limits)OMENDB_LIMITS_INIT;
    if (quota != NULL)
        *limits = quota->limits;
}

OMENDB_INTERNAL void quota_destroy(struct collection *collection)
{
    memory_free(&collection->db->memory,
                atomic_load_explicit(&collection->quota, memory_order_relaxed),
                sizeof(struct quota));
}

/* ------------------------------------------------------------------ usage */

OMENDB_INTERNAL void quota_tell(struct collection *collection, omendb_collection_stats *stats)
{
    const struct quota *quota = atomic_load_explicit(&collection->quota, memory_order_acquire);
    platform_mutex_lock(&collection->db->commit_mutex);
    stats->bytes =
        quota_record_bytes(collection, collection->used_records, collection->used_documents);
    platform_mutex_unlock(&collection->db->commit_mutex);
    if (quota == NULL)
        return;
    stats->queries = atomic_load_explicit(&quota->queries, memory_order_relaxed);
    stats->writes = atomic_load_explicit(&quota->writes, memory_order_relaxed);
    stats->queries_refused = atomic_load_explicit(&quota->queries_refused, memory_order_relaxed);
    stats->writes_refused = atomic_load_explicit(&quota->writes_refused, memory_order_relaxed);
}

OMENDB_INTERNAL uint64_t quota_record_bytes(const struct collection *collection, uint64_t records,
                                            uint64_t documents)
{
    return records * (collection->vector_bytes + sizeof(uint64_t)) + documents;
}

OMENDB_INTERNAL void quota_account(struct collection *collection, uint64_t new_records,
                                   uint64_t new_documents, uint64_t old_records,
                                   uint64_t old_documents)
{
    collection->used_records = quota_subtract(collection->used_records + new_records, old_records);
    collection->used_documents =
        quota_subtract(collection->used_documents + new_documents, old_documents);
}

static uint64_t quota_new_records(const struct change *change)
{
    return change->kind == CHANGE_ADD || change->kind == CHANGE_PUT ? change->count : 0;
}

OMENDB_INTERNAL void quota_account_change(const struct change *change)
{
    quota_account(change->collection, quota_new_records(change), change->document_bytes,
                  change->ended_records, change->ended_documents);
}

static void quota_grow(struct quota_growth *growth, const struct change *change,
                       uint64_t ended_records, uint64_t ended_documents)
{
    const struct collection *collection = change->collection;
    const uint64_t records = quota_new_records(change);
    growth->collection = collection->id;
    growth->new_records += records;
    growth->new_bytes += quota_record_bytes(collection, records, change->document_bytes);
    growth->old_records += ended_records;
    growth->old_bytes += quota_record_bytes(collection, ended_records, ended_documents);
}

OMENDB_INTERNAL int quota_measure(const struct change *change, struct quota_growth *growth)
{
    struct collection *collection = change->collection;
    uint64_t records = 0, documents = 0, changed;
    int code = rest_end_locked(collection);
    const struct version *version =
        atomic_load_explicit(&collection->version, memory_order_relaxed);
    for (uint32_t i = 0; i < change->count && code == OMENDB_OK; i++) {
        uint32_t bytes;
        struct location live = {NULL, NULL, NULL, 0};
        code = version_locate_live(version, change->ids[i], &live, &changed);
        if (code != OMENDB_OK || (live.memtable == NULL && live.segment == NULL))
            continue;
        records += change->kind != CHANGE_UPDATE;
        code = location_document_bytes(&live, UINT64_MAX, &bytes);
        documents += bytes;
    }
    if (code == OMENDB_OK)
        quota_grow(growth, change, records, documents);
    return code;
}

/* What waiting prepared transactions will add. */
static void quota_reserved(const struct collection *collection, uint64_t *records, uint64_t *bytes)
{
    const struct prepared_set *set = &collection->db->prepared;
    *records = *bytes = 0;
    for (size_t i = 0; i < set->count; i++) {
        for (size_t g = 0; g < set->items[i]->growth_count; g++) {
            const struct quota_growth *growth = &set->items[i]->growths[g];
            if (growth->collection != collection->id)
                continue;
            *records += quota_subtract(growth->new_records, growth->old_records);
            *bytes += quota_subtract(growth->new_bytes, growth->old_bytes);
        }
    }
}

/* ------------------------------------------------------------------ rates */

/* Ticks in which so many tokens come back. */
static uint64_t quota_ticks(uint64_t count, uint64_t rate)
{
    const double ticks = (double)count * ((double)QUOTA_SECOND / (double)rate);
    return ticks < (double)QUOTA_DEBT ? (uint64_t)ticks : QUOTA_DEBT;
}

static uint64_t quota_now(const struct collection *collection)
{
    const omendb_vfs *vfs = collection->db->storage.vfs;
    return vfs->now_us(vfs->context) * QUOTA_TICKS;
}

/* Whether so many may pass; *due is moved on then. *wait: ticks after which they may. */
static int quota_pass(uint64_t now, uint64_t rate, uint64_t count, uint64_t *due, uint64_t *wait)
{
    const uint64_t cost = quota_ticks(count, rate), ahead = quota_subtract(*due, now);
    const uint64_t needed = cost < QUOTA_SECOND ? cost : QUOTA_SECOND;
    *wait = quota_subtract(quota_add(ahead, needed), QUOTA_SECOND);
    if (*wait != 0)
        return 0;
    *due = now + ahead + cost;
    return 1;
}

static int quota_refuse_rate(const struct collection *collection, const char *what, uint64_t rate,
                             uint64_t count, uint64_t wait)
{
    const uint64_t millisecond = QUOTA_SECOND / 1000;
    return error_set(OMENDB_QUOTA,
                     "collection \"%s\" allows %llu %s a second; %llu more must wait: try again in "
                     "%llu ms",
                     collection->name, (unsigned long long)rate, what, (unsigned long long)count,
                     (unsigned long long)((wait + millisecond - 1) / millisecond));
}

OMENDB_INTERNAL int quota_take_queries(struct collection *collection, uint64_t count)
{
    struct quota *quota = atomic_load_explicit(&collection->quota, memory_order_acquire);
    if (quota == NULL)
        return OMENDB_OK;
    const uint64_t rate = atomic_load_explicit(&quota->query_rate, memory_order_relaxed);
    if (rate != 0) {
        const uint64_t now = quota_now(collection);
        uint64_t before = atomic_load_explicit(&quota->query_due, memory_order_relaxed), due, wait;
        do {
            due = before;
            if (!quota_pass(now, rate, count, &due, &wait)) {
                atomic_fetch_add_explicit(&quota->queries_refused, count, memory_order_relaxed);
                return quota_refuse_rate(collection, "queries", rate, count, wait);
            }
        } while (!atomic_compare_exchange_weak_explicit(
            &quota->query_due, &before, due, memory_order_relaxed, memory_order_relaxed));
    }
    atomic_fetch_add_explicit(&quota->queries, count, memory_order_relaxed);
    return OMENDB_OK;
}

/* ------------------------------------------------------------------ what is committed together */

/* Adds the changes of one collection up, from `first` on; returns the end of its run. *writes:
 * records that are written or deleted. */
static size_t quota_add_up(const struct change *changes, size_t first, size_t count,
                           struct quota_growth *growth, uint64_t *writes)
{
    const struct collection *collection = changes[first].collection;
    size_t at = first;
    *growth = (struct quota_growth){0};
    *writes = 0;
    for (; at < count && changes[at].collection == collection; at++) {
        const struct change *change = &changes[at];
        if (!commit_is_of_records(change->kind))
            continue;
        quota_grow(growth, change, change->ended_records, change->ended_documents);
        *writes += change->count;
    }
    return at;
}

/* Whether so much may come, and so much go. What does not grow may always. */
static int quota_check_size(const struct collection *collection, const char *what, uint64_t limit,
                            uint64_t used, uint64_t reserved, uint64_t more)
{
    if (limit == 0 || more == 0 || quota_add(quota_add(used, reserved), more) <= limit)
        return OMENDB_OK;
    char waiting[64] = "";
    if (reserved != 0)
        snprintf(waiting, sizeof waiting, ", prepared transactions wait with %llu",
                 (unsigned long long)reserved);
    return error_set(OMENDB_QUOTA,
                     "collection \"%s\" may hold %llu %s; it holds %llu%s, and this would add %llu",
                     collection->name, (unsigned long long)limit, what, (unsigned long long)used,
                     waiting, (unsigned long long)more);
}

/* commit_mutex. */
static int quota_check_rate(const struct collection *collection, const struct quota *quota,
                            uint64_t writes)
{
    const uint64_t rate = quota->limits.writes_per_second;
    uint64_t due = quota->write_due, wait;
    return rate == 0 || quota_pass(quota_now(collection), rate, writes, &due, &wait)
               ? OMENDB_OK
               : quota_refuse_rate(collection, "writes", rate, writes, wait);
}

static int quota_check_run(struct collection *collection, const struct quota_growth *growth,
                           uint64_t writes, int *by_rate)
{
    struct quota *quota = atomic_load_explicit(&collection->quota, memory_order_relaxed);
    const uint64_t used =
        quota_record_bytes(collection, collection->used_records, collection->used_documents);
    uint64_t records, bytes;
    if (quota == NULL)
        return OMENDB_OK;
    quota_reserved(collection, &records, &bytes);
    int code =
        quota_check_size(collection, "records", quota->limits.records, collection->used_records,
                         records, quota_subtract(growth->new_records, growth->old_records));
    if (code == OMENDB_OK)
        code = quota_check_size(collection, "bytes", quota->limits.bytes, used, bytes,
                                quota_subtract(growth->new_bytes, growth->old_bytes));
    if (code == OMENDB_OK) {
        code = quota_check_rate(collection, quota, writes);
        *by_rate = code != OMENDB_OK;
    }
    if (code != OMENDB_OK)
        atomic_fetch_add_explicit(&quota->writes_refused, writes, memory_order_relaxed);
    return code;
}

OMENDB_INTERNAL int quota_check_changes(const struct change *changes, size_t count, int *by_rate)
{
    int code = OMENDB_OK;
    for (size_t at = 0; at < count && code == OMENDB_OK;) {
        struct collection *collection = changes[at].collection;
        struct quota_growth growth;
        uint64_t writes;
        at = quota_add_up(changes, at, count, &growth, &writes);
        if (writes != 0)
            code = quota_check_run(collection, &growth, writes, by_rate);
    }
    return code;
}

OMENDB_INTERNAL int quota_foresee_rate(struct collection *collection, uint64_t writes)
{
    struct quota *quota = atomic_load_explicit(&collection->quota, memory_order_acquire);
    if (quota == NULL)
        return OMENDB_OK;
    platform_mutex_lock(&collection->db->commit_mutex);
    int code = quota_check_rate(collection, quota, writes);
    platform_mutex_unlock(&collection->db->commit_mutex);
    if (code != OMENDB_OK)
        atomic_fetch_add_explicit(&quota->writes_refused, writes, memory_order_relaxed);
    return code;
}

OMENDB_INTERNAL void quota_spend_changes(const struct change *changes, size_t count)
{
    for (size_t at = 0; at < count;) {
        struct collection *collection = changes[at].collection;
        struct quota *quota = atomic_load_explicit(&collection->quota, memory_order_relaxed);
        struct quota_growth growth;
        uint64_t writes;
        at = quota_add_up(changes, at, count, &growth, &writes);
        if (quota == NULL)
            continue;
        const uint64_t rate = quota->limits.writes_per_second;
        const uint64_t now = rate == 0 ? 0 : quota_now(collection);
        if (rate != 0)
            quota->write_due =
                (quota->write_due > now ? quota->write_due : now) + quota_ticks(writes, rate);
        atomic_fetch_add_explicit(&quota->writes, writes, memory_order_relaxed);
    }
}

#undef QUOTA_TICKS
#undef QUOTA_SECOND
#undef QUOTA_DEBT
