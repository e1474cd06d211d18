// bench_ingest.cpp: durable adds: batches of 1,000 vectors, each acknowledged after a sync.
//
// Two runs over the same rows. "raised": the tail's bound is raised above the data, so that no
// writer waits for the graph: its acknowledged rate is what the log and the memtable can do, its
// sustained rate includes the building that is then left. Nobody searches meanwhile, since a search
// would scan most of the rows. "default": the bound that keeps a search fast while rows pour in; a
// searcher asks 100 times a second, and the percentiles of its answers are shown. The program fails
// if there were fewer syncs than commit groups: then something was acknowledged that was not on the
// device.

#include "bench.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

using namespace bench;

namespace
{

constexpr size_t kBatch = 1000;

struct Result {
    double acknowledged = 0; // rows a second
    double sustained = 0;
    double batch_p99_ms = 0;
    double search_p50_ms = 0; // while adds went on; 0: nobody searched
    double search_p99_ms = 0;
    omendb_stats stats = OMENDB_STATS_INIT;
};

// Searches 100 times a second until told to stop.
class Searcher
{
  public:
    Searcher(omendb_collection *collection, const Dataset &data)
        : thread_([this, collection, &data] { search_until_stopped(collection, data); })
    {
    }

    std::vector<double> finish()
    {
        stop_ = true;
        thread_.join();
        return times_ms_;
    }

  private:
    void search_until_stopped(omendb_collection *collection, const Dataset &data)
    {
        uint64_t ids[kHits];
        float distances[kHits];
        size_t count;
        for (size_t q = 0; !stop_; q++) {
            omendb_query query = OMENDB_QUERY_INIT;
            query.vector = &data.queries[q % data.query_count * data.dim];
            query.k = kHits;
            double begun = seconds_now();
            check(omendb_search(collection, nullptr, &query, ids, distances, &count), "search");
            times_ms_.push_back((seconds_now() - begun) * 1e3);
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
    }

    std::atomic<bool> stop_{false};
    std::vector<double> times_ms_;
    std::thread thread_;
};

Result ingest(const Dataset &data, bool raised)
{
    Result result;
    Database database;
    std::vector<double> batch_ms;
    std::string path = directory() + "/ingest.omen";
    remove_tree(path);
    database.options.threads = kBuildThreads;
    database.options.stall_timeout_ms = 3600000;
    if (raised)
        database.options.tail_limit = UINT64_C(1) << 40;
    database.open(path, data.dim, data.metric);
    std::unique_ptr<Searcher> searcher;
    if (!raised)
        searcher = std::make_unique<Searcher>(database.collection, data);
    Progress progress(raised ? "adding, bound raised" : "adding, default bound", data.rows);
    double begun = seconds_now();
    for (size_t first = 0; first < data.rows; first += kBatch) {
        double before = seconds_now();
        database.add(data, first, std::min(kBatch, data.rows - first));
        batch_ms.push_back((seconds_now() - before) * 1e3);
        progress.update(first);
    }
    result.acknowledged = (double)data.rows / (seconds_now() - begun);
    if (searcher) {
        std::vector<double> search_ms = searcher->finish();
        result.search_p50_ms = percentile(search_ms, 0.50);
        result.search_p99_ms = percentile(search_ms, 0.99);
    }
    database.wait_for_graph(data.rows);
    result.sustained = (double)data.rows / (seconds_now() - begun);
    result.batch_p99_ms = percentile(batch_ms, 0.99);
    result.stats = database.stats();
    database.close();
    remove_tree(path);
    return result;
}

} // namespace

int main()
{
    Dataset data = load_dataset(false);
    Csv csv("ingest.csv", "tail,rows,acknowledged_per_second,sustained_per_second,batch_p99_ms,"
                          "search_p50_ms,search_p99_ms,syncs,commit_groups,written_bytes");
    printf("adding %zu x %zu f32 in batches of %zu, OMENDB_SYNC_FULL, file system %s\n%s\n\n",
           data.rows, data.dim, kBatch, file_system(directory()).c_str(), machine().c_str());
    printf("%-8s %12s %12s %11s %11s %11s %8s %8s %10s\n", "tail", "acked/s", "sustained/s",
           "batch p99", "search p50", "search p99", "syncs", "groups", "written");
    bool honest = true;
    for (bool raised : {true, false}) {
        Result result = ingest(data, raised);
        const char *name = raised ? "raised" : "default";
        const omendb_stats &stats = result.stats;
        printf("%-8s %12.0f %12.0f %8.2f ms %8.2f ms %8.2f ms %8zu %8zu %7.0f MB\n", name,
               result.acknowledged, result.sustained, result.batch_p99_ms, result.search_p50_ms,
               result.search_p99_ms, (size_t)stats.syncs, (size_t)stats.commit_groups,
               (double)stats.written_bytes / 1e6);
        fflush(stdout);
        csv.line("%s,%zu,%.1f,%.1f,%.3f,%.3f,%.3f,%zu,%zu,%zu", name, data.rows,
                 result.acknowledged, result.sustained, result.batch_p99_ms, result.search_p50_ms,
                 result.search_p99_ms, (size_t)stats.syncs, (size_t)stats.commit_groups,
                 (size_t)stats.written_bytes);
        honest = honest && stats.syncs >= stats.commit_groups && stats.commit_groups > 0;
    }
    if (!honest)
        fprintf(stderr, "fewer syncs than commit groups\n");
    return honest ? 0 : 1;
}
