// bench_build.cpp: building with two threads: seconds, peak memory, bytes a vector.
//
// Each library builds in a process of its own, so that one's memory is not another's. What the data
// set holds is taken off. On a shared machine compare the CPU seconds, not those of the clock.
// "bulk" is OmenDB as for a one-time load: large batches, the tail's bound raised, then
// omendb_optimize; everything is on disk and synced at the end. "streaming" is OmenDB with its
// defaults, batches of 1,000, until the last row is in a graph, without optimising. The peers build
// in memory; saving is not in their time. Indexes are left for bench_search.

#include "bench.h"
#include "peers.h"

#include <atomic>
#include <chrono>
#include <thread>

using namespace bench;

namespace
{

// Follows the anonymous memory of this process, whose peak the kernel does not keep.
class AnonymousPeak
{
  public:
    AnonymousPeak()
        : thread_([this] {
              while (!stop_) {
                  peak_ = std::max(peak_.load(), process_memory().anonymous_bytes);
                  std::this_thread::sleep_for(std::chrono::milliseconds(20));
              }
          })
    {
    }

    uint64_t finish()
    {
        stop_ = true;
        thread_.join();
        return peak_;
    }

  private:
    std::atomic<bool> stop_{false};
    std::atomic<uint64_t> peak_{0};
    std::thread thread_;
};

void stream_omendb(const std::string &path, const Dataset &data)
{
    constexpr size_t kBatch = 1000;
    Database database;
    Progress progress("OmenDB streaming", data.rows);
    remove_tree(path);
    database.options.threads = kBuildThreads;
    database.options.stall_timeout_ms = 3600000;
    database.open(path, data.dim, data.metric);
    for (size_t first = 0; first < data.rows; first += kBatch) {
        database.add(data, first, std::min(kBatch, data.rows - first));
        progress.update(first);
    }
    database.wait_for_graph(data.rows);
    database.close();
}

// The child: prints seconds, CPU seconds, peak bytes, peak anonymous bytes, bytes of the index.
int build_one(const std::string &name)
{
    Dataset data = load_dataset(false);
    std::unique_ptr<Peer> peer = make_peer(name, data.dim);
    std::string path = index_path(name);
    Memory before = process_memory();
    AnonymousPeak anonymous;
    double cpu_before = process_cpu_seconds(), begun = seconds_now();
    if (peer)
        peer->build(data);
    else if (name == "OmenDB")
        build_omendb(path, data);
    else
        stream_omendb(path, data);
    double seconds = seconds_now() - begun, cpu = process_cpu_seconds() - cpu_before;
    uint64_t peak = process_memory().peak_bytes - before.resident_bytes;
    uint64_t peak_anonymous = anonymous.finish() - before.anonymous_bytes;
    if (peer)
        peer->save(path);
    printf("%f %f %zu %zu %zu\n", seconds, cpu, (size_t)peak, (size_t)peak_anonymous,
           (size_t)tree_bytes(path));
    return 0;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1)
        return build_one(argv[1]);
    size_t rows, dim;
    {
        Dataset data = load_dataset(false);
        rows = data.rows;
        dim = data.dim;
    }
    std::vector<std::string> names = peer_names();
    names.insert(names.begin(), {"OmenDB", "OmenDB-streaming"});
    Csv csv("build.csv", "library,rows,seconds,cpu_seconds,peak_bytes,peak_anonymous_bytes,"
                         "index_bytes");
    printf("building %zu x %zu f32 with %d threads, M=%d, ef_construction=%d\n%s, %s\n\n", rows,
           dim, kBuildThreads, kM, kEfConstruction, machine().c_str(),
           file_system(directory()).c_str());
    printf("%-18s %9s %12s %12s %14s %14s\n", "library", "seconds", "CPU seconds", "peak MB",
           "peak anon MB", "index B/row");
    for (const std::string &name : names) {
        double seconds = 0, cpu = 0;
        size_t peak = 0, anonymous = 0, index = 0;
        sscanf(run_self({name}).c_str(), "%lf %lf %zu %zu %zu", &seconds, &cpu, &peak, &anonymous,
               &index);
        printf("%-18s %9.1f %12.1f %12.0f %14.0f %14.0f\n", name.c_str(), seconds, cpu,
               (double)peak / 1e6, (double)anonymous / 1e6, (double)index / (double)rows);
        fflush(stdout);
        csv.line("%s,%zu,%.2f,%.2f,%zu,%zu,%zu", name.c_str(), rows, seconds, cpu, peak, anonymous,
                 index);
    }
    return 0;
}
