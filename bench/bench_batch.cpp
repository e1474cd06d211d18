// bench_batch.cpp: many queries in one call: queries a second of omendb_search_batch over one and
// over all cores, beside as many calls of omendb_search, at two recalls.
//
// By the clock, which is what a batch saves; the best of the rounds, which take turns. The database
// is the one of bench_build, opened anew for each number of threads (a batch runs over the
// database's threads and the caller's) and searched until its pages are where searches want them.

#include "bench.h"

#include <algorithm>
#include <thread>

using namespace bench;

namespace
{

constexpr int kRounds = 5;
constexpr float kStretches[] = {1.15f, 1.30f};
constexpr int kSettling = 3; // seconds in which copies in huge pages are made

struct Batch {
    const Dataset &data;
    Database database;
    std::vector<uint64_t> ids;
    std::vector<float> distances;
    std::vector<size_t> counts;

    Batch(const Dataset &set, int threads)
        : data(set), ids(set.query_count * kHits), distances(set.query_count * kHits),
          counts(set.query_count)
    {
        database.options.must_exist = 1;
        database.options.threads = threads;
        check(omendb_open(index_path("OmenDB").c_str(), &database.options, &database.db),
              "omendb_open");
        check(omendb_collection_open(database.db, collection_name().c_str(), nullptr,
                                     &database.collection),
              "omendb_collection_open");
    }

    ~Batch()
    {
        database.close();
    }

    void together(float stretch)
    {
        omendb_query query = OMENDB_QUERY_INIT;
        query.k = kHits;
        query.stretch = stretch;
        check(omendb_search_batch(database.collection, nullptr, &query, data.queries.data(),
                                  data.query_count, ids.data(), distances.data(), counts.data()),
              "omendb_search_batch");
    }

    void one_by_one(float stretch)
    {
        omendb_query query = OMENDB_QUERY_INIT;
        query.k = kHits;
        query.stretch = stretch;
        for (size_t q = 0; q < data.query_count; q++) {
            query.vector = &data.queries[q * data.dim];
            check(omendb_search(database.collection, nullptr, &query, &ids[q * kHits],
                                &distances[q * kHits], &counts[q]),
                  "omendb_search");
        }
    }

    void settle()
    {
        for (double begun = seconds_now(); seconds_now() - begun < kSettling;) {
            together(kStretches[0]);
            omendb_work(database.db, 100, nullptr);
        }
    }
};

template <typename Run> double rate_of(const Dataset &data, Run run)
{
    double begun = seconds_now();
    run();
    return (double)data.query_count / (seconds_now() - begun);
}

} // namespace

int main()
{
    Dataset data = load_dataset(true);
    int cores = std::max(1, (int)std::thread::hardware_concurrency());
    Csv csv("batch", "stretch,recall,threads,queries_per_second,one_by_one,scaling");
    std::printf("%s, %zu x %zu, %zu queries a batch\n\n", machine().c_str(), data.rows, data.dim,
                data.query_count);
    std::printf("%8s %8s %8s %12s %12s %8s\n", "stretch", "recall", "threads", "batch q/s",
                "single q/s", "scaling");
    for (float stretch : kStretches) {
        double alone = 0;
        for (int threads = 1; threads <= cores; threads *= 2) {
            Batch batch(data, threads - 1);
            double together = 0, single = 0;
            batch.settle();
            for (int round = 0; round < kRounds; round++) {
                together = std::max(together, rate_of(data, [&] { batch.together(stretch); }));
                single = std::max(single, rate_of(data, [&] { batch.one_by_one(stretch); }));
            }
            double found = recall(data.truth.data(), batch.ids.data(), data.query_count);
            alone = threads == 1 ? together : alone;
            std::printf("%8.2f %8.4f %8d %12.0f %12.0f %8.2f\n", (double)stretch, found, threads,
                        together, single, together / alone);
            csv.line("%.2f,%.5f,%d,%.1f,%.1f,%.3f", (double)stretch, found, threads, together,
                     single, together / alone);
        }
    }
    return 0;
}
