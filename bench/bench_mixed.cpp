// bench_mixed.cpp: what a writer at full speed costs a reader that has a core of its own.
//
// One thread searches, pinned to core 0. The writer is pinned to core 1 and so are the background
// threads, which inherit it: they build graph, make checkpoints and merge meanwhile. There are as
// many as OMENDB_THREADS_AUTO gives on two cores; it would count the core that they are pinned to.
// Searching alone and beside the writer take turns, since no machine is ever quite alone. The
// database is opened anew for each turn from a copy of the same one, of half of the rows; the
// writer adds the others and replaces a tenth of its batches, in batches of 1,000 as fast as it is
// let. Logs are short, and a turn beside the writer is longer where it has seen too few merges.
//
// Beside the clock the CPU time of each search is taken: it leaves out what other programs, or the
// scheduler, take from the core, so it decides. "spin" is the p99 of a loop of about the length of
// a search that touches no memory: a measure of the machine. "scanned" are the rows that a search
// compares one by one, "sources" the segments and memtables that it asks: what it costs more.
//
//   OMENDB_BENCH_MIXED_ROWS       of the data set (default 100,000)
//   OMENDB_BENCH_MIXED_SECONDS    of each turn (default 8), at least
//   OMENDB_BENCH_MIXED_MERGES     wanted in each turn beside the writer (default 2); it lasts at
//                                 most five times as long for them
//   OMENDB_BENCH_MIXED_THREADS    in the background (default 2)
//   OMENDB_BENCH_MIXED_ROUNDS     (default 3)
//   OMENDB_BENCH_MIXED_WAL_MB     wal_limit (default 16)
//   OMENDB_BENCH_MIXED_TAIL_KB    tail_limit (default that of the library)

#include "bench.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <thread>

using namespace bench;

namespace
{

constexpr size_t kBatch = 1000;
constexpr uint32_t kEf = 64;
constexpr double kAllowed = 2.0; // times the p99 alone

struct Turn {
    std::vector<double> wall_us, cpu_us, spin_us, scanned, sources;
    std::atomic<size_t> rows{0}; // written
    double rows_per_second = 0;
    uint64_t checkpoints = 0, merges = 0;
};

void open_copy(Database &database, const std::string &from, const Dataset &data)
{
    std::string path = directory() + "/mixed-copy.omen";
    copy_tree(from, path);
    database.options.threads = (int32_t)setting("OMENDB_BENCH_MIXED_THREADS", 2);
    database.options.wal_limit = (uint64_t)setting("OMENDB_BENCH_MIXED_WAL_MB", 16) << 20;
    database.options.tail_limit = (uint64_t)setting("OMENDB_BENCH_MIXED_TAIL_KB", 0) << 10;
    database.options.stall_timeout_ms = 3600000;
    database.open(path, data.dim, data.metric);
}

omendb_explain search(Database &database, const Dataset &data, size_t q)
{
    omendb_explain explain = OMENDB_EXPLAIN_INIT;
    uint64_t ids[kHits];
    float distances[kHits];
    size_t count;
    omendb_query query = OMENDB_QUERY_INIT;
    query.vector = &data.queries[q % data.query_count * data.dim];
    query.k = kHits;
    query.ef = kEf;
    query.explain = &explain;
    check(omendb_search(database.collection, nullptr, &query, ids, distances, &count), "search");
    return explain;
}

void write_until(const std::atomic<bool> &stop, Database &database, const Dataset &data,
                 size_t first, Turn &turn)
{
    std::vector<float> vectors(kBatch * data.dim);
    std::vector<uint64_t> ids(kBatch);
    for (size_t batch = 0, next = first; !stop; batch++) {
        bool replaces = batch % 10 == 9;
        size_t from = replaces ? batch * 7919 % (first / kBatch) * kBatch : next;
        data.vectors(from % (data.rows - kBatch + 1), kBatch, vectors.data());
        for (size_t i = 0; i < kBatch; i++)
            ids[i] = from + i;
        check(omendb_put_batch(database.collection, nullptr, kBatch, ids.data(), vectors.data(),
                               OMENDB_F32, nullptr),
              "omendb_put_batch");
        next += replaces ? 0 : kBatch;
        turn.rows += kBatch;
    }
}

// About as long as a search, and touches no memory.
double spin()
{
    double begun = seconds_now(), value = 1;
    for (int i = 0; i < 20000; i++)
        value = std::sqrt(value + 1);
    return (seconds_now() - begun) * 1e6 + (value < 0 ? 1 : 0);
}

void search_until(double until, Database &database, const Dataset &data, Turn &turn)
{
    for (size_t q = 0; seconds_now() < until; q++) {
        double begun = seconds_now(), cpu = thread_cpu_seconds();
        omendb_explain explain = search(database, data, q);
        turn.cpu_us.push_back((thread_cpu_seconds() - cpu) * 1e6);
        turn.wall_us.push_back((seconds_now() - begun) * 1e6);
        turn.scanned.push_back((double)explain.scanned_rows);
        turn.sources.push_back((double)explain.segments);
        if (q % 8 == 0)
            turn.spin_us.push_back(spin());
    }
}

void take_turn(const std::string &path, const Dataset &data, bool writing, Turn &turn)
{
    Database database;
    std::atomic<bool> stop{false};
    pin_to_core(1); // for the threads that opening starts
    open_copy(database, path, data);
    std::thread writer;
    if (writing)
        writer = std::thread([&] { write_until(stop, database, data, data.rows / 2, turn); });
    pin_to_core(0);
    for (size_t q = 0; q < data.query_count; q++)
        search(database, data, q);
    omendb_stats before = database.stats(), after;
    size_t rows = turn.rows, slices = 0;
    double begun = seconds_now(), slice = (double)setting("OMENDB_BENCH_MIXED_SECONDS", 8);
    do {
        search_until(begun + slice * (double)++slices, database, data, turn);
        after = database.stats();
    } while (writing && slices < 5 &&
             after.merges - before.merges < setting("OMENDB_BENCH_MIXED_MERGES", 2));
    turn.rows_per_second = (double)(turn.rows - rows) / (seconds_now() - begun);
    stop = true;
    if (writing)
        writer.join();
    turn.checkpoints = after.checkpoints - before.checkpoints;
    turn.merges = after.merges - before.merges;
    pin_to_core(1);
    database.close();
    remove_tree(directory() + "/mixed-copy.omen");
}

void print_turn(const char *name, const Turn &turn, Csv &csv)
{
    double p50 = percentile(turn.wall_us, 0.5), p99 = percentile(turn.wall_us, 0.99),
           p999 = percentile(turn.wall_us, 0.999), cpu50 = percentile(turn.cpu_us, 0.5),
           cpu99 = percentile(turn.cpu_us, 0.99), cpu999 = percentile(turn.cpu_us, 0.999),
           spin99 = percentile(turn.spin_us, 0.99), scanned50 = percentile(turn.scanned, 0.5),
           scanned99 = percentile(turn.scanned, 0.99), sources99 = percentile(turn.sources, 0.99);
    printf(
        "%-8s %9zu %8.0f %8.0f %8.0f %8.0f %8.0f %8.0f %8.0f %8.0f %8.0f %7.0f %8.0f %6zu %6zu\n",
        name, turn.wall_us.size(), p50, p99, p999, cpu50, cpu99, cpu999, spin99, scanned50,
        scanned99, sources99, turn.rows_per_second, (size_t)turn.checkpoints, (size_t)turn.merges);
    fflush(stdout);
    csv.line("%s,%zu,%.1f,%.1f,%.1f,%.1f,%.1f,%.1f,%.1f,%.0f,%.0f,%.0f,%.0f,%zu,%zu", name,
             turn.wall_us.size(), p50, p99, p999, cpu50, cpu99, cpu999, spin99, scanned50,
             scanned99, sources99, turn.rows_per_second, (size_t)turn.checkpoints,
             (size_t)turn.merges);
}

} // namespace

int main()
{
    setenv("OMENDB_BENCH_ROWS", std::to_string(setting("OMENDB_BENCH_MIXED_ROWS", 100000)).c_str(),
           1);
    setenv("OMENDB_BENCH_QUERIES", "1000", 0);
    Dataset data = load_dataset(false);
    std::string path = index_path("mixed");
    Dataset half = data;
    half.rows = data.rows / 2;
    if (!exists(path))
        build_omendb(path, half);
    Csv csv("mixed.csv", "turn,searches,p50_us,p99_us,p999_us,cpu_p50_us,cpu_p99_us,cpu_p999_us,"
                         "spin_p99_us,scanned_p50,scanned_p99,sources_p99,rows_per_second,"
                         "checkpoints,merges");
    printf("searches on core 0 (k = %zu, ef = %u, %zu x %zu), a writer with its background threads "
           "on core 1\n%s\n\n",
           kHits, kEf, half.rows, data.dim, machine().c_str());
    printf("%-8s %9s %8s %8s %8s %8s %8s %8s %8s %8s %8s %7s %8s %6s %6s\n", "", "searches",
           "p50 us", "p99", "p99.9", "cpu p50", "cpu p99", "p99.9", "spin p99", "scanned", "p99",
           "sources", "rows/s", "chkpts", "merges");
    std::vector<double> wall, cpu;
    for (size_t round = 0; round < setting("OMENDB_BENCH_MIXED_ROUNDS", 3); round++) {
        Turn alone, beside;
        take_turn(path, data, false, alone);
        take_turn(path, data, true, beside);
        print_turn("alone", alone, csv);
        print_turn("beside", beside, csv);
        wall.push_back(percentile(beside.wall_us, 0.99) / percentile(alone.wall_us, 0.99));
        cpu.push_back(percentile(beside.cpu_us, 0.99) / percentile(alone.cpu_us, 0.99));
    }
    double median = percentile(cpu, 0.5);
    printf(
        "\np99 beside to p99 alone, by CPU time: best round %.2f, median %.2f; by the clock %.2f, "
        "%.2f\n",
        *std::min_element(cpu.begin(), cpu.end()), median,
        *std::min_element(wall.begin(), wall.end()), percentile(wall, 0.5));
    printf("%s %.1f times\n", median <= kAllowed ? "within" : "NOT within", kAllowed);
    return median <= kAllowed ? 0 : 1;
}
