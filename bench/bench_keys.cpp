// bench_keys.cpp: records with ids and keys in no order, added to a collection that is already
// large: records a second, memory, lookups by key and by id, the time to open.
//
// What is added, to an empty collection until it has all rows, and then, after it was closed and
// opened again, a tenth on top:
//   random        ids of 63 bits at random
//   adversarial   ids of bench_ids of that name, shuffled: no line goes through more than 18
//   keys          the key "vec" and the number of the record, shuffled; automatic ids
//   long keys     keys of 60 bytes, of which the first 40 are the same in all; automatic ids
// Each record has a vector of 4 dimensions; no graph is built, and nothing synced. Lookups are of
// records drawn at random from all (found) and of ones that are not there (missed): omendb_find for
// keys, omendb_get for ids. Rates are by the CPU time of the thread on core 0, opening by the
// clock.
//
//   OMENDB_BENCH_KEYS_ROWS  (default 10,000,000)
//   OMENDB_BENCH_KEYS_BATCH records a call (default 1,000)
//
// Arguments: the kinds to take instead of all.

#include "bench.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <random>

using namespace bench;

namespace
{

constexpr size_t kDim = 4;
constexpr size_t kLookups = 1000000;
constexpr size_t kKeyBytes = 64;
const char kPrefix[] = "https://example.org/documents/archive/no/";

// Number i of a kind: a key, or an id that bench_ids would make. Numbers are taken in an order that
// visits each once, and those that are not there are the ones behind the last.
struct Records {
    std::string kind;
    size_t rows, all;          // rows and those on top, all of which exist at the end
    std::vector<uint64_t> ids; // empty: keys
    std::vector<uint32_t> order;

    Records(const std::string &of, size_t count) : kind(of), rows(count), all(count + count / 10)
    {
        std::mt19937_64 random(7);
        if (kind == "random")
            make_random(random);
        else if (kind == "adversarial")
            make_adversarial(random);
        order.resize(all);
        for (size_t i = 0; i < all; i++)
            order[i] = (uint32_t)i;
        std::shuffle(order.begin(), order.end(), random);
    }
    void make_random(std::mt19937_64 &random)
    {
        while (ids.size() < all + kLookups)
            ids.push_back(random() >> 1);
    }
    void make_adversarial(std::mt19937_64 &random)
    {
        uint64_t next = 0;
        while (ids.size() < all + kLookups) {
            next += ids.size() / 18 % 2 == 1 ? 1 : UINT64_C(1) << (10 + random() % 20);
            ids.push_back(next);
        }
        std::shuffle(ids.begin(), ids.end(), random); // so that those not there lie between
    }
    bool has_keys() const
    {
        return ids.empty();
    }
    void key(size_t number, char *out) const
    {
        if (kind == "keys")
            snprintf(out, kKeyBytes, "vec%zu", number);
        else
            snprintf(out, kKeyBytes, "%s%019zu", kPrefix, number * 1000003);
    }
};

// Adds `count` records from place `first` of the order on; returns records a second.
double add(const Database &database, const Records &records, size_t first, size_t count)
{
    const size_t batch = setting("OMENDB_BENCH_KEYS_BATCH", 1000);
    std::vector<float> vectors(batch * kDim);
    std::vector<char> keys(batch * kKeyBytes);
    std::vector<uint64_t> ids(batch);
    std::vector<omendb_record> given(batch, omendb_record OMENDB_RECORD_INIT);
    double cpu = 0;
    for (size_t at = first; at < first + count; at += batch) {
        const size_t now = std::min(batch, first + count - at);
        for (size_t i = 0; i < now; i++) {
            const uint32_t number = records.order[at + i];
            for (size_t d = 0; d < kDim; d++)
                vectors[i * kDim + d] = (float)((number + d * 7) % 1009);
            if (records.has_keys())
                records.key(number, &keys[i * kKeyBytes]);
            else
                ids[i] = records.ids[number];
            given[i].vector = &vectors[i * kDim];
            given[i].key = &keys[i * kKeyBytes];
        }
        const double begun = thread_cpu_seconds();
        const int code =
            records.has_keys()
                ? omendb_add_records(database.collection, nullptr, now, given.data(), nullptr)
                : omendb_add_batch(database.collection, nullptr, now, ids.data(), vectors.data(),
                                   OMENDB_F32, nullptr);
        cpu += thread_cpu_seconds() - begun;
        check(code, "adding");
    }
    return (double)count / cpu;
}

// Lookups a second; the wrong number of finds ends the program.
double look_up(const Database &database, const Records &records, bool there)
{
    std::mt19937_64 random(11);
    std::vector<char> keys(records.has_keys() ? kLookups * kKeyBytes : 0);
    std::vector<uint64_t> ids(records.has_keys() ? 0 : kLookups);
    for (size_t i = 0; i < kLookups; i++) {
        const size_t number = there ? random() % records.all : records.all + i;
        if (records.has_keys())
            records.key(number, &keys[i * kKeyBytes]);
        else
            ids[i] = records.ids[number];
    }
    size_t found = 0;
    const double begun = thread_cpu_seconds();
    for (size_t i = 0; i < kLookups; i++) {
        uint64_t id;
        found += OMENDB_OK ==
                 (records.has_keys()
                      ? omendb_find(database.collection, nullptr, &keys[i * kKeyBytes], &id)
                      : omendb_get(database.collection, nullptr, ids[i], OMENDB_F32, nullptr));
    }
    const double rate = (double)kLookups / (thread_cpu_seconds() - begun);
    if (found != (there ? kLookups : 0)) {
        fprintf(stderr, "%s: found %zu of %zu\n", records.kind.c_str(), found, kLookups);
        exit(1);
    }
    return rate;
}

void create(Database &database, const std::string &path)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = kDim;
    schema.M = 2;
    schema.ef_construction = 8;
    remove_tree(path);
    database.options.threads = 0;
    database.options.sync = OMENDB_SYNC_OFF;
    database.options.wal_limit = UINT64_C(16) << 30;
    database.options.tail_limit = UINT64_C(16) << 30;
    check(omendb_open(path.c_str(), &database.options, &database.db), "omendb_open");
    check(omendb_collection_create(database.db, "keys", &schema, &database.collection),
          "omendb_collection_create");
}

// Closes and opens again; returns the seconds of opening, of which the database is then one file
// that the system has in its cache.
double reopen(Database &database, const std::string &path)
{
    database.close();
    const double begun = seconds_now();
    check(omendb_open(path.c_str(), &database.options, &database.db), "omendb_open");
    check(omendb_collection_open(database.db, "keys", nullptr, &database.collection),
          "omendb_collection_open");
    return seconds_now() - begun;
}

double megabytes(const Database &database)
{
    return (double)database.stats().memory_bytes / 1e6;
}

void measure(const std::string &kind, Csv &csv)
{
    const Records records(kind, setting("OMENDB_BENCH_KEYS_ROWS", 10000000));
    const std::string path = directory() + "/keys.omen";
    const size_t tenth = records.rows / 10;
    Database database;
    Progress progress(kind, records.rows);
    double first = 0, last = 0;
    create(database, path);
    for (size_t at = 0; at < records.rows; at += tenth) {
        last = add(database, records, at, std::min(tenth, records.rows - at));
        first = at == 0 ? last : first;
        progress.update(at + tenth);
    }
    const double in_memory = megabytes(database);
    const double opened = reopen(database, path);
    const double at_rest = megabytes(database);
    const double on_top = add(database, records, records.rows, records.all - records.rows);
    const double found = look_up(database, records, true);
    const double missed = look_up(database, records, false);
    const double reopened = reopen(database, path);
    const double disk = (double)tree_bytes(path) / 1e6;
    printf("%-12s %9zu %10.0f %10.0f %10.0f %9.0f %9.1f %9.2f %9.2f %8.0f %9.0f %8.0f\n",
           kind.c_str(), records.rows, first, last, on_top, in_memory, at_rest, opened * 1e3,
           reopened * 1e3, found / 1e3, missed / 1e3, disk);
    fflush(stdout);
    csv.line("%s,%zu,%.0f,%.0f,%.0f,%.1f,%.1f,%.2f,%.2f,%.0f,%.0f,%.1f", kind.c_str(), records.rows,
             first, last, on_top, in_memory, at_rest, opened * 1e3, reopened * 1e3, found, missed,
             disk);
    database.close();
    remove_tree(path);
}

} // namespace

int main(int count, char **arguments)
{
    Csv csv("keys.csv", "kind,rows,added_first,added_last,added_on_top,memory_mb,memory_opened_mb,"
                        "open_ms,open_again_ms,found,missed,disk_mb");
    pin_to_core((int)setting("OMENDB_BENCH_CORE", 0));
    printf("records with ids and keys in no order, a second of one core\n%s\n\n",
           machine().c_str());
    printf("%-12s %9s %10s %10s %10s %9s %9s %9s %9s %8s %9s %8s\n", "", "rows", "1st tenth",
           "last", "on top", "MB", "MB opened", "open ms", "again ms", "k found", "k missed",
           "disk MB");
    std::vector<std::string> kinds(arguments + 1, arguments + count);
    if (kinds.empty())
        kinds = {"random", "adversarial", "keys", "long keys"};
    for (const std::string &kind : kinds)
        measure(kind, csv);
    return 0;
}
