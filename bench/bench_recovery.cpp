// bench_recovery.cpp: a log of 1 GB replayed.
//
// A child commits batches of 1,000 vectors, and another single ones, with a wal_limit above the
// log, so that no checkpoint is made; then it is killed. Each opening happens in a process of its
// own, on a copy of what was left. Read-only it is the replay alone. For writing it is the replay
// and the checkpoint of what was replayed, which comes before anything is shown. Every acknowledged
// row is counted: a fast recovery that loses one is a failure.
//
//   OMENDB_BENCH_RECOVERY_MB      of log (default 1024; of single commits an eighth)
//   OMENDB_BENCH_RECOVERY_ROUNDS  (default 3); the best one is shown

#include "bench.h"

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <random>
#include <unistd.h>

using namespace bench;

namespace
{

struct Case {
    const char *name;
    size_t dim;
    size_t batch;
    bool put; // replaces the first tenth again and again
};

constexpr Case kCases[] = {
    {"128-d, batches", 128, 1000, false},
    {"768-d, batches", 768, 1000, false},
    {"128-d, single", 128, 1, false},
    {"128-d, replaced", 128, 1000, true},
};

uint64_t log_bytes(const Case &chosen)
{
    uint64_t bytes = (uint64_t)setting("OMENDB_BENCH_RECOVERY_MB", 1024) << 20;
    return chosen.batch == 1 ? bytes / 8 : bytes;
}

// The child: writes until the log is full, then dies; prints what was acknowledged. It does not
// sync, as what is in the page cache survives it.
int crash(const std::string &path, const Case &chosen)
{
    Database database;
    std::mt19937_64 random(1);
    std::uniform_real_distribution<float> element(-1, 1);
    std::vector<float> vectors(chosen.batch * chosen.dim * 2);
    std::vector<uint64_t> ids(chosen.batch);
    uint64_t limit = log_bytes(chosen), row_bytes = chosen.dim * sizeof(float) + sizeof(uint64_t);
    uint64_t rows = limit / row_bytes / (chosen.put ? 10 : 1), next = 0, written = 0;
    for (float &value : vectors)
        value = element(random);
    database.options.wal_limit = UINT64_C(1) << 50;
    database.options.tail_limit = UINT64_C(1) << 50;
    database.options.sync = OMENDB_SYNC_OFF;
    database.options.threads = 0;
    database.open(path, chosen.dim, OMENDB_L2);
    while (written < limit) {
        for (uint64_t &id : ids)
            id = next++ % (rows + chosen.batch);
        const float *first = &vectors[random() % (chosen.batch * chosen.dim)];
        check(omendb_put_batch(database.collection, nullptr, ids.size(), ids.data(), first,
                               OMENDB_F32, nullptr),
              "omendb_put_batch");
        written += row_bytes * chosen.batch;
    }
    printf("%zu %zu\n", (size_t)next, (size_t)database.stats().records);
    fflush(stdout);
    raise(SIGKILL);
    return 1;
}

// The child: prints seconds, CPU seconds, peak memory and records.
int open_once(const std::string &path, bool read_only)
{
    Database database;
    database.options.must_exist = 1;
    database.options.read_only = read_only;
    database.options.threads = 0;
    double begun = seconds_now(), cpu = process_cpu_seconds();
    check(omendb_open(path.c_str(), &database.options, &database.db), "omendb_open");
    double opened = seconds_now(), cpu_opened = process_cpu_seconds();
    omendb_stats stats = database.stats();
    printf("%f %f %zu %zu\n", opened - begun, cpu_opened - cpu, (size_t)process_memory().peak_bytes,
           (size_t)stats.records);
    fflush(stdout);
    _exit(0);
}

struct Opening {
    double seconds = 0, cpu_seconds = 0;
    size_t peak_bytes = 0, records = 0;
};

Opening run_opening(const std::string &path, bool read_only)
{
    Opening result;
    sscanf(run_self({read_only ? "read" : "write", path}).c_str(), "%lf %lf %zu %zu",
           &result.seconds, &result.cpu_seconds, &result.peak_bytes, &result.records);
    return result;
}

Opening best_opening(const std::string &crashed, bool read_only)
{
    std::string copy = directory() + "/recovery-copy.omen";
    Opening best;
    for (size_t round = 0; round < setting("OMENDB_BENCH_RECOVERY_ROUNDS", 3); round++) {
        if (!read_only)
            copy_tree(crashed, copy);
        Opening opening = run_opening(read_only ? crashed : copy, read_only);
        if (round == 0 || opening.seconds < best.seconds)
            best = opening;
    }
    remove_tree(copy);
    return best;
}

bool recover(size_t index, Csv &csv)
{
    const Case &chosen = kCases[index];
    std::string crashed = directory() + "/recovery.omen";
    size_t written = 0, records = 0;
    bool whole = true;
    remove_tree(crashed);
    sscanf(run_self({"crash", crashed, std::to_string(index)}).c_str(), "%zu %zu", &written,
           &records);
    double megabytes = (double)log_bytes(chosen) / 1e6;
    for (bool read_only : {true, false}) {
        Opening opening = best_opening(crashed, read_only);
        const char *how = read_only ? "replay" : "open";
        whole = whole && opening.records == records;
        printf("%-16s %-7s %10zu %8.0f %8.2f %8.2f %10.0f %8.0f %8.0f\n", chosen.name, how, written,
               megabytes, opening.seconds, opening.cpu_seconds, (double)written / opening.seconds,
               megabytes / opening.seconds, (double)opening.peak_bytes / 1e6);
        fflush(stdout);
        csv.line("%zu,%zu,%d,%s,%zu,%.1f,%.3f,%.3f,%zu", chosen.dim, chosen.batch, (int)chosen.put,
                 how, written, megabytes, opening.seconds, opening.cpu_seconds, opening.peak_bytes);
    }
    remove_tree(crashed);
    if (!whole)
        fprintf(stderr, "%s: rows are missing\n", chosen.name);
    return whole;
}

} // namespace

int main(int argc, char **argv)
{
    std::string part = argc > 2 ? argv[1] : "";
    if (part == "crash")
        return crash(argv[2], kCases[atoi(argv[3])]);
    if (part == "read" || part == "write")
        return open_once(argv[2], part == "read");
    Csv csv("recovery.csv", "dim,batch,put,part,rows,log_megabytes,seconds,cpu_seconds,peak_bytes");
    printf("a log replayed; file system %s, in the page cache\n%s\n\n",
           file_system(directory()).c_str(), machine().c_str());
    printf("%-16s %-7s %10s %8s %8s %8s %10s %8s %8s\n", "", "", "rows", "MB", "s", "cpu s",
           "rows/s", "MB/s", "peak MB");
    bool whole = true;
    for (size_t i = 0; i < sizeof kCases / sizeof *kCases; i++)
        whole = recover(i, csv) && whole;
    return whole ? 0 : 1;
}
