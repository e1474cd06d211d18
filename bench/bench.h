// bench.h: what the benchmarks share: the data set, clocks, memory figures, progress, tables.
//
// Every benchmark is one program that prints a table on standard output and writes the same rows as
// CSV under build/bench. Progress goes to standard error, and only when that is a terminal. A
// failed call of a library ends the program with its message: a benchmark has nothing to save.
//
// Settings come from the environment, so that one line repeats a run:
//   OMENDB_BENCH_DATA     the set: "sift" (default), "text", "wide" or "growth"; bench/datasets
//                         makes the last three. Its metric follows: squared L2, cosine, cosine,
//                         squared L2. All are given as f32, and stored so but for growth (u8).
//   OMENDB_BENCH_PEERS    "none" leaves the peers out
//   OMENDB_DATA           folder with the files of the sets (default build/data), or "synthetic"
//   OMENDB_BENCH_ROWS     rows of the data set that are used (default 1,000,000; quick: 100,000)
//   OMENDB_BENCH_QUERIES  queries that are used (default 10,000)
//   OMENDB_BENCH_DIR      where databases, indexes and results go (default build/bench)
#ifndef BENCH_H
#define BENCH_H

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "omendb.h"

namespace bench
{

constexpr int kM = 16;
constexpr int kEfConstruction = 200;
constexpr int kBuildThreads = 2;
constexpr size_t kHits = 10; // recall@10

// Vectors are kept as the file holds them and bytes are widened where a library wants floats, so
// that the memory of the data set is a small part of any figure. Floats are of unit length.
struct Dataset {
    std::string name;
    int metric = OMENDB_L2;
    size_t dim = 0;
    size_t rows = 0;
    size_t query_count = 0;
    std::vector<uint8_t> bytes;  // rows * dim, when the set is of bytes
    std::vector<float> floats;   // rows * dim, when it is of floats
    std::vector<float> queries;  // query_count * dim
    std::vector<uint32_t> truth; // query_count * kHits: the exact nearest, nearest first
    void vector(size_t row, float *out) const;
    void vectors(size_t first, size_t count, float *out) const;
};

// truth: false leaves queries' exact neighbours out (building needs none).
Dataset load_dataset(bool truth);

// Exact nearest kHits of each query among the listed rows of the data set, as positions in that
// list, nearest first, equal distances by position.
std::vector<uint32_t> exact_neighbours(const Dataset &data, const std::vector<uint32_t> &rows,
                                       const float *queries, size_t query_count);

// Share of the true nearest that was found.
double recall(const uint32_t *truth, const uint64_t *found, size_t query_count);

size_t setting(const char *name, size_t otherwise);
std::string directory();                         // OMENDB_BENCH_DIR, created
std::string index_path(const std::string &name); // a place for an index of these rows, kept
void remove_tree(const std::string &path);
void copy_tree(const std::string &from, const std::string &to);
uint64_t tree_bytes(const std::string &path);
bool exists(const std::string &path);

double seconds_now();
double thread_cpu_seconds();                                 // used by this thread
double process_cpu_seconds();                                // used by all threads of this process
double percentile(std::vector<double> values, double share); // 0..1
void pin_to_core(int core);
void run_threads(int count, const std::function<void(int)> &work);

struct Memory {
    uint64_t peak_bytes = 0;      // most ever resident, mapped files included (VmHWM)
    uint64_t anonymous_bytes = 0; // resident now, without files
    uint64_t resident_bytes = 0;  // resident now
};
Memory process_memory();

std::string file_system(const std::string &path); // "ext4"
std::string machine();                            // CPU, cores, kernels, pages

// Runs this program again with `arguments`; returns what it printed. A failure ends this one.
std::string run_self(const std::vector<std::string> &arguments);

// A line "label 12,000 of 100,000 (3,456 a second, 25 s left)", rewritten in place on a terminal.
class Progress
{
  public:
    Progress(const std::string &label, size_t total);
    ~Progress();
    void update(size_t done);

  private:
    std::string label_;
    size_t total_;
    double begun_;
    double shown_ = 0;
    bool visible_;
};

// One CSV file in directory().
class Csv
{
  public:
    Csv(const std::string &name, const std::string &header);
    ~Csv();
    void line(const char *format, ...) __attribute__((format(printf, 2, 3)));

  private:
    FILE *file_;
};

// Ends the program with omendb_errmsg() unless code is OMENDB_OK.
void check(int code, const char *what);

// OmenDB as every benchmark uses it: one collection of f32, named after the set.
std::string collection_name();
struct Database {
    omendb *db = nullptr;
    omendb_collection *collection = nullptr;
    omendb_options options = OMENDB_OPTIONS_INIT;
    void open(const std::string &path, size_t dim, int metric);
    void close();
    void add(const Dataset &data, size_t first, size_t count); // row number = id, one commit
    void wait_for_graph(size_t rows); // until no row is searched by scanning
    omendb_stats stats() const;
    omendb_collection_stats collection_stats() const;
};

// Builds, optimises and closes a database of all rows at `path`, with kBuildThreads.
void build_omendb(const std::string &path, const Dataset &data);

} // namespace bench

#endif
