// bench_open.cpp: how long until a database can be used: opened after a clean close, and after a
// kill -9 with a full log.
//
// Each opening happens in a process of its own. "warm": the files are in the page cache, as when a
// program is started again. "cold": their pages were dropped first, so the device is measured too.
// After the kill every acknowledged row is counted: a fast recovery that loses one is a failure.

#include "bench.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

using namespace bench;

namespace
{

constexpr int kRuns = 5;
constexpr uint64_t kLogBytes = UINT64_C(60) << 20; // just below the default wal_limit

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

// The child: opens, searches once, searches 1,000 times; prints the three times and the records.
int open_once(const std::string &path)
{
    setenv("OMENDB_BENCH_ROWS", "1", 1); // only the queries are wanted
    Dataset data = load_dataset(false);
    Database database;
    uint64_t ids[kHits], records;
    float distances[kHits];
    size_t count;
    double begun = seconds_now();
    database.options.must_exist = 1;
    check(omendb_open(path.c_str(), &database.options, &database.db), "omendb_open");
    check(omendb_collection_open(database.db, collection_name().c_str(), nullptr,
                                 &database.collection),
          "omendb_collection_open");
    double opened = seconds_now(), first = 0;
    size_t queries = std::min<size_t>(data.query_count, 1000);
    for (size_t q = 0; q < queries; q++) {
        omendb_query query = OMENDB_QUERY_INIT;
        query.vector = &data.queries[q * data.dim];
        check(omendb_search(database.collection, nullptr, &query, ids, distances, &count),
              "omendb_search");
        if (q == 0)
            first = seconds_now();
    }
    double last = seconds_now();
    check(omendb_count(database.collection, nullptr, &records), "omendb_count");
    printf("%f %f %f %zu\n", (opened - begun) * 1e3, (first - opened) * 1e3,
           (last - first) * 1e6 / (double)std::max<size_t>(queries - 1, 1), (size_t)records);
    database.close();
    return 0;
}

// The child: adds rows under new ids until the log is full, then dies; prints what was
// acknowledged.
int crash(const std::string &path)
{
    constexpr size_t kBatch = 1000;
    Dataset data = load_dataset(false);
    Database database;
    std::vector<float> vectors(kBatch * data.dim);
    size_t added = 0;
    database.options.wal_limit = 2 * kLogBytes;
    database.options.tail_limit = UINT64_C(1) << 40;
    database.options.threads = 0; // no checkpoint meanwhile
    database.open(path, data.dim, data.metric);
    while (database.stats().wal_bytes < kLogBytes) {
        data.vectors(added % (data.rows - kBatch + 1), kBatch, vectors.data());
        check(omendb_add_batch(database.collection, nullptr, kBatch, nullptr, vectors.data(),
                               OMENDB_F32, nullptr),
              "omendb_add_batch");
        added += kBatch;
    }
    printf("%zu\n", added);
    fflush(stdout);
    raise(SIGKILL);
    return 1;
}

struct Opening {
    double open_ms = 0, first_ms = 0, search_us = 0;
    size_t records = 0;
};

Opening run_opening(const std::string &path)
{
    Opening result;
    sscanf(run_self({"open", path}).c_str(), "%lf %lf %lf %zu", &result.open_ms, &result.first_ms,
           &result.search_us, &result.records);
    return result;
}

Opening median_opening(const std::string &path, bool cold)
{
    std::vector<Opening> runs;
    for (int i = 0; i < kRuns; i++) {
        if (cold)
            drop_pages(path);
        runs.push_back(run_opening(path));
    }
    std::sort(runs.begin(), runs.end(), [](const Opening &a, const Opening &b) {
        return a.open_ms + a.first_ms < b.open_ms + b.first_ms;
    });
    return runs[kRuns / 2];
}

void print(Csv &csv, const char *name, const Opening &opening)
{
    printf("%-12s %10zu %12.2f %16.2f %16.1f\n", name, opening.records, opening.open_ms,
           opening.first_ms, opening.search_us);
    csv.line("%s,%zu,%.3f,%.3f,%.2f", name, opening.records, opening.open_ms, opening.first_ms,
             opening.search_us);
    fflush(stdout);
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 2)
        return std::string(argv[1]) == "open" ? open_once(argv[2]) : crash(argv[2]);
    std::string path = index_path("OmenDB"), crashed = directory() + "/crashed.omen";
    if (!exists(path))
        build_omendb(path, load_dataset(false));
    Csv csv("open.csv", "case,records,open_ms,first_query_ms,next_query_us");
    printf("%s, file system %s\n\n", machine().c_str(), file_system(directory()).c_str());
    printf("%-12s %10s %12s %16s %16s\n", "case", "records", "open ms", "first query ms",
           "next query us");
    Opening warm = median_opening(path, false);
    print(csv, "warm", warm);
    print(csv, "cold", median_opening(path, true));
    copy_tree(path, crashed);
    size_t added = (size_t)atoll(run_self({"crash", crashed}).c_str());
    Opening after = run_opening(crashed);
    print(csv, "after kill", after);
    remove_tree(crashed);
    printf("\n%zu rows were acknowledged before the kill, %zu are there\n", warm.records + added,
           after.records);
    return after.records == warm.records + added && added > 0 ? 0 : 1;
}
