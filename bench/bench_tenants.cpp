// bench_tenants.cpp: a database of many small collections, one a tenant: what it takes to create
// them, to open the database, to keep them idle, to use each once, and to drop them.
//
// Each case has its own database of OMENDB_BENCH_TENANTS collections (10,000) with 0, 10 or 100
// records of 64 dimensions each. Each opening happens in a process of its own, with the files in
// the page cache ("warm") or dropped from it ("cold"). Memory is what the database says that it has
// allocated, less that of a database without collections.

#include "bench.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

using namespace bench;

namespace
{

constexpr size_t kDim = 64;
constexpr int kRuns = 5;
constexpr size_t kBatch = 1000;

size_t tenants()
{
    return setting("OMENDB_BENCH_TENANTS", 10000);
}

std::string tenant_name(size_t tenant)
{
    char name[32];
    snprintf(name, sizeof name, "tenant-%06zu", tenant);
    return name;
}

omendb_schema tenant_schema()
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = kDim;
    return schema;
}

size_t entries(const char *path)
{
    DIR *folder = opendir(path);
    size_t count = 0;
    while (readdir(folder) != nullptr)
        count++;
    closedir(folder);
    return count - 2;
}

void drop_pages(const std::string &path)
{
    DIR *folder = opendir(path.c_str());
    while (struct dirent *entry = readdir(folder)) {
        int file = open((path + "/" + entry->d_name).c_str(), O_RDONLY);
        if (file >= 0) {
            posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
            close(file);
        }
    }
    closedir(folder);
}

omendb_stats stats_of(omendb *db)
{
    omendb_stats stats = OMENDB_STATS_INIT;
    check(omendb_get_stats(db, &stats), "omendb_get_stats");
    return stats;
}

// Until the background has done what was left to do.
void settle(omendb *db)
{
    uint64_t merges = UINT64_MAX;
    while (merges != stats_of(db).merges) {
        merges = stats_of(db).merges;
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
    }
}

double since(double begun)
{
    return seconds_now() - begun;
}

std::vector<float> record_vectors(size_t tenant, size_t count)
{
    std::vector<float> vectors(count * kDim);
    uint64_t state = tenant + 1;
    for (float &value : vectors) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        value = (float)(state >> 40) * 0x1p-24f;
    }
    return vectors;
}

void fill(omendb *db, size_t tenant, size_t records)
{
    omendb_collection *collection;
    std::vector<float> vectors = record_vectors(tenant, records);
    check(omendb_collection_open(db, tenant_name(tenant).c_str(), nullptr, &collection),
          "omendb_collection_open");
    check(omendb_add_batch(collection, nullptr, records, nullptr, vectors.data(), OMENDB_F32,
                           nullptr),
          "omendb_add_batch");
    omendb_collection_close(collection);
}

// The nearest to the tenant's own first record is that record: no other tenant's is as near.
void search_each(omendb *db, size_t records)
{
    for (size_t i = 0; i < tenants(); i++) {
        omendb_collection *collection;
        uint64_t ids[kHits];
        float distances[kHits];
        size_t count;
        std::vector<float> vector = record_vectors(i, 1);
        omendb_query query = OMENDB_QUERY_INIT;
        query.vector = vector.data();
        check(omendb_collection_open(db, tenant_name(i).c_str(), nullptr, &collection),
              "omendb_collection_open");
        check(omendb_search(collection, nullptr, &query, ids, distances, &count), "omendb_search");
        omendb_collection_close(collection);
        if (count != std::min(kHits, records) || (records != 0 && distances[0] != 0.0f)) {
            fprintf(stderr, "%s does not find its own records\n", tenant_name(i).c_str());
            exit(1);
        }
    }
}

// The child: opens; prints milliseconds, bytes a tenant after opening, descriptors, threads;
// microseconds of a first use of each, and bytes a tenant after that.
int open_once(const std::string &path, size_t records)
{
    omendb *db;
    omendb_options options = OMENDB_OPTIONS_INIT;
    check(omendb_open(":memory:", &options, &db), "omendb_open");
    uint64_t nothing = stats_of(db).memory_bytes;
    check(omendb_close(db), "omendb_close");
    options.must_exist = 1;
    options.threads = (int32_t)setting("OMENDB_BENCH_THREADS", 2);
    size_t files = entries("/proc/self/fd"), threads = entries("/proc/self/task");
    double begun = seconds_now();
    check(omendb_open(path.c_str(), &options, &db), "omendb_open");
    double opened = since(begun);
    files = entries("/proc/self/fd") - files;
    threads = entries("/proc/self/task") - threads;
    settle(db);
    uint64_t idle = stats_of(db).memory_bytes;
    begun = seconds_now();
    search_each(db, records);
    double searched = since(begun);
    uint64_t used = stats_of(db).memory_bytes;
    check(omendb_close(db), "omendb_close");
    printf("%f %f %zu %zu %f %f\n", opened * 1e3, (double)(idle - nothing) / (double)tenants(),
           files, threads, searched * 1e6 / (double)tenants(),
           (double)(used - nothing) / (double)tenants());
    return 0;
}

struct Opening {
    double ms = 0, idle_bytes = 0, use_us = 0, used_bytes = 0;
    size_t files = 0, threads = 0;
};

Opening median_opening(const std::string &path, size_t records, bool cold)
{
    std::vector<Opening> runs(kRuns);
    for (Opening &run : runs) {
        if (cold)
            drop_pages(path);
        sscanf(run_self({"open", path, std::to_string(records)}).c_str(), "%lf %lf %zu %zu %lf %lf",
               &run.ms, &run.idle_bytes, &run.files, &run.threads, &run.use_us, &run.used_bytes);
    }
    std::sort(runs.begin(), runs.end(),
              [](const Opening &a, const Opening &b) { return a.ms < b.ms; });
    return runs[kRuns / 2];
}

struct Report {
    Csv csv{"tenants.csv", "records,what,value,unit"};
    size_t records = 0;
    void line(const char *what, double value, const char *unit)
    {
        printf("%8zu  %-46s %12.3f %s\n", records, what, value, unit);
        csv.line("%zu,%s,%.4f,%s", records, what, value, unit);
        fflush(stdout);
    }
};

omendb *open_for(const std::string &path, uint32_t sync)
{
    omendb *db;
    omendb_options options = OMENDB_OPTIONS_INIT;
    options.sync = sync;
    options.threads = (int32_t)setting("OMENDB_BENCH_THREADS", 2);
    check(omendb_open(path.c_str(), &options, &db), "omendb_open");
    return db;
}

void create_one(omendb *db, size_t tenant)
{
    omendb_collection *collection;
    omendb_schema schema = tenant_schema();
    check(omendb_collection_create(db, tenant_name(tenant).c_str(), &schema, &collection),
          "omendb_collection_create");
    omendb_collection_close(collection);
}

void create_all(omendb *db)
{
    omendb_schema schema = tenant_schema();
    std::vector<std::string> names;
    std::vector<const char *> pointers;
    for (size_t i = 0; i < tenants(); i++)
        names.push_back(tenant_name(i));
    for (const std::string &name : names)
        pointers.push_back(name.c_str());
    check(omendb_collection_create_batch(db, pointers.size(), pointers.data(), &schema),
          "omendb_collection_create_batch");
}

// One call a tenant, from one thread or several: these share the syncs of the log.
void create_singly(Report &report, const std::string &path)
{
    const size_t some = std::min<size_t>(tenants(), 2000);
    for (int threads : {1, 16}) {
        remove_tree(path);
        omendb *db = open_for(path, OMENDB_SYNC_FULL);
        double begun = seconds_now();
        run_threads(threads, [&](int thread) {
            for (size_t i = (size_t)thread; i < some; i += (size_t)threads)
                create_one(db, i);
        });
        report.line(threads == 1 ? "create, FULL, one thread" : "create, FULL, 16 threads",
                    since(begun) * 1e6 / (double)some, "us each");
        check(omendb_close(db), "omendb_close");
    }
    remove_tree(path);
    omendb *db = open_for(path, OMENDB_SYNC_FULL);
    double begun = seconds_now();
    create_all(db);
    report.line("create, FULL, one batch", since(begun) * 1e6 / (double)tenants(), "us each");
    check(omendb_close(db), "omendb_close");
    remove_tree(path);
    db = open_for(path, OMENDB_SYNC_NORMAL);
    begun = seconds_now();
    for (size_t i = 0; i < tenants(); i++)
        create_one(db, i);
    report.line("create, NORMAL, one thread", since(begun) * 1e6 / (double)tenants(), "us each");
    check(omendb_close(db), "omendb_close");
}

void make(Report &report, const std::string &path)
{
    remove_tree(path);
    omendb *db = open_for(path, OMENDB_SYNC_NORMAL);
    double begun = seconds_now();
    create_all(db);
    report.line("create all", since(begun), "s");
    begun = seconds_now();
    for (size_t i = 0; i < tenants() && report.records != 0; i++)
        fill(db, i, report.records);
    report.line("fill all", since(begun), "s");
    begun = seconds_now();
    check(omendb_close(db), "omendb_close");
    report.line("close", since(begun) * 1e3, "ms");
    report.line("size", (double)tree_bytes(path) / (double)tenants(), "bytes each");
}

void measure_opening(Report &report, const std::string &path)
{
    Opening warm = median_opening(path, report.records, false);
    Opening cold = median_opening(path, report.records, true);
    report.line("open, warm", warm.ms, "ms");
    report.line("open, cold", cold.ms, "ms");
    report.line("memory after opening", warm.idle_bytes, "bytes each");
    report.line("memory after one search in each", warm.used_bytes, "bytes each");
    report.line("descriptors of all", (double)warm.files, "");
    report.line("threads of all", (double)warm.threads, "");
    report.line("open handle, search, close, the first time", warm.use_us, "us each");
}

void measure_checkpoint(Report &report, const std::string &path)
{
    omendb *db = open_for(path, OMENDB_SYNC_NORMAL);
    std::vector<double> times;
    for (int i = 0; i < 2 * kRuns; i++) {
        fill(db, 0, 1);
        double begun = seconds_now();
        check(omendb_checkpoint(db), "omendb_checkpoint");
        times.push_back(since(begun) * 1e3);
    }
    report.line("checkpoint of one that changed", percentile(times, 0.5), "ms");
    double begun = seconds_now();
    for (size_t i = 0; i < tenants() / 10; i++)
        fill(db, i, 1);
    check(omendb_checkpoint(db), "omendb_checkpoint");
    report.line("a record to a tenth of them, checkpoint", since(begun) * 1e3, "ms");
    check(omendb_close(db), "omendb_close");
}

void measure_dropping(Report &report, const std::string &path)
{
    omendb *db = open_for(path, OMENDB_SYNC_NORMAL);
    size_t few = tenants() / 10;
    double begun = seconds_now();
    for (size_t i = 0; i < few; i++)
        check(omendb_collection_drop(db, tenant_name(i).c_str()), "omendb_collection_drop");
    report.line("drop a tenth", since(begun) * 1e6 / (double)few, "us each");
    begun = seconds_now();
    for (size_t i = few; i < tenants(); i++)
        check(omendb_collection_drop(db, tenant_name(i).c_str()), "omendb_collection_drop");
    report.line("drop the others", since(begun) * 1e6 / (double)(tenants() - few), "us each");
    check(omendb_checkpoint(db), "omendb_checkpoint");
    report.line("size when all are dropped", (double)tree_bytes(path) / 1e3, "kB");
    check(omendb_close(db), "omendb_close");
    remove_tree(path);
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 3)
        return open_once(argv[2], strtoull(argv[3], nullptr, 10));
    std::string path = directory() + "/tenants.omen";
    Report report;
    printf("%s, file system %s, %zu collections\n\n", machine().c_str(),
           file_system(directory()).c_str(), tenants());
    printf("%8s\n", "records");
    if (setting("OMENDB_BENCH_TENANT_RECORDS", SIZE_MAX) == SIZE_MAX)
        create_singly(report, path);
    const size_t only = setting("OMENDB_BENCH_TENANT_RECORDS", SIZE_MAX);
    for (size_t records : {0, 10, 100}) {
        if (only != SIZE_MAX && only != records)
            continue;
        report.records = records;
        make(report, path);
        measure_opening(report, path);
        measure_checkpoint(report, path);
        if (setting("OMENDB_BENCH_KEEP", 0) == 0)
            measure_dropping(report, path);
    }
    return 0;
}
