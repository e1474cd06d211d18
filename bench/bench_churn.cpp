// bench_churn.cpp: does a graph that is merged again and again stay as good as a new one?
//
// Fifty rounds; in each 30 % of the records change (half deleted with as many new ones added, half
// replaced in place by another vector), then the database is optimised, which merges. At the end
// recall@10 is compared with that of a database built from the same records at once. Rows that are
// in use are disjoint from those that come next, so no vector is there twice.
//
// OMENDB_BENCH_CHURN_ROWS (default 100,000) records; the data set has to have twice as many rows.

#include "bench.h"

#include <algorithm>
#include <random>

using namespace bench;

namespace
{

constexpr int kMerges = 50;
constexpr double kAllowed = 0.005;
constexpr size_t kEfs[] = {32, 64, 128};

// Which row of the data set each record holds. Ids are given once and never again.
struct Records {
    std::vector<uint64_t> ids;
    std::vector<uint32_t> rows;
    std::vector<uint32_t> spare;
    uint64_t next_id = 0;
};

Records first_records(size_t count, std::mt19937_64 &random)
{
    Records records;
    std::vector<uint32_t> pool(2 * count);
    for (size_t i = 0; i < pool.size(); i++)
        pool[i] = (uint32_t)i;
    std::shuffle(pool.begin(), pool.end(), random);
    records.rows.assign(pool.begin(), pool.begin() + (long)count);
    records.spare.assign(pool.begin() + (long)count, pool.end());
    while (records.next_id < count)
        records.ids.push_back(records.next_id++);
    return records;
}

void put(Database &database, const Dataset &data, const Records &records, size_t first, size_t last)
{
    constexpr size_t kBatch = 1000;
    for (; first < last; first += kBatch) {
        size_t count = std::min(kBatch, last - first);
        std::vector<float> vectors(count * data.dim);
        for (size_t i = 0; i < count; i++)
            data.vector(records.rows[first + i], &vectors[i * data.dim]);
        check(omendb_put_batch(database.collection, nullptr, count, &records.ids[first],
                               vectors.data(), OMENDB_F32, nullptr),
              "omendb_put_batch");
    }
}

// The first 30 % after a shuffle change; what they held becomes spare.
void change(Database &database, const Dataset &data, Records &records, std::mt19937_64 &random)
{
    size_t count = records.ids.size(), changed = count * 3 / 10, deleted = changed / 2;
    for (size_t i = 0; i < changed; i++) {
        std::swap(records.spare[i], records.spare[i + random() % (records.spare.size() - i)]);
        size_t other = i + random() % (count - i);
        std::swap(records.ids[i], records.ids[other]);
        std::swap(records.rows[i], records.rows[other]);
        std::swap(records.rows[i], records.spare[i]);
    }
    check(omendb_delete_batch(database.collection, nullptr, deleted, records.ids.data(), nullptr),
          "omendb_delete_batch");
    for (size_t i = 0; i < deleted; i++)
        records.ids[i] = records.next_id++;
    put(database, data, records, 0, changed);
}

void optimize(Database &database)
{
    check(omendb_optimize(database.db, nullptr, nullptr), "omendb_optimize");
}

void open_empty(Database &database, const std::string &path, const Dataset &data)
{
    remove_tree(path);
    database.options.threads = kBuildThreads;
    database.options.tail_limit = UINT64_C(1) << 40;
    database.options.stall_timeout_ms = 3600000;
    database.open(path, data.dim, data.metric);
}

// Recall at each of kEfs, against the exact neighbours by id.
std::vector<double> measure(Database &database, const Dataset &data, const Records &records)
{
    std::vector<uint32_t> truth =
        exact_neighbours(data, records.rows, data.queries.data(), data.query_count);
    std::vector<double> result;
    for (uint32_t &position : truth)
        position = (uint32_t)records.ids[position];
    for (size_t ef : kEfs) {
        std::vector<uint64_t> found(data.query_count * kHits);
        for (size_t q = 0; q < data.query_count; q++) {
            omendb_query query = OMENDB_QUERY_INIT;
            size_t count;
            query.vector = &data.queries[q * data.dim];
            query.k = kHits;
            query.ef = (uint32_t)ef;
            check(omendb_search(database.collection, nullptr, &query, &found[q * kHits], nullptr,
                                &count),
                  "omendb_search");
        }
        result.push_back(recall(truth.data(), found.data(), data.query_count));
    }
    return result;
}

bool report(const std::vector<double> &churned, const std::vector<double> &fresh)
{
    bool good = true;
    Csv csv("churn.csv", "ef,recall_churned,recall_fresh");
    printf("%6s %12s %12s %12s\n", "ef", "churned", "fresh", "difference");
    for (size_t i = 0; i < churned.size(); i++) {
        printf("%6zu %12.4f %12.4f %+12.4f\n", kEfs[i], churned[i], fresh[i],
               churned[i] - fresh[i]);
        csv.line("%zu,%.5f,%.5f", kEfs[i], churned[i], fresh[i]);
        good = good && churned[i] >= fresh[i] - kAllowed;
    }
    printf("%s %.3f of a fresh build\n", good ? "within" : "NOT within", kAllowed);
    return good;
}

} // namespace

int main()
{
    size_t rows = setting("OMENDB_BENCH_CHURN_ROWS", 100000);
    setenv("OMENDB_BENCH_ROWS", std::to_string(2 * rows).c_str(), 1);
    if (!getenv("OMENDB_BENCH_QUERIES"))
        setenv("OMENDB_BENCH_QUERIES", "1000", 1);
    Dataset data = load_dataset(false);
    std::mt19937_64 random(1);
    Records records = first_records(data.rows / 2, random);
    Database churned, fresh;
    open_empty(churned, directory() + "/churned.omen", data);
    put(churned, data, records, 0, records.ids.size());
    optimize(churned);
    Progress progress("merges", kMerges);
    double begun = seconds_now();
    for (size_t merge = 1; merge <= kMerges; merge++) {
        change(churned, data, records, random);
        optimize(churned);
        progress.update(merge);
    }
    omendb_stats stats = churned.stats();
    printf("%zu records, %d rounds of 30 %% churn and a merge in %.0f s: %zu merges, %zu of them "
           "built afresh\n",
           records.ids.size(), kMerges, seconds_now() - begun, (size_t)stats.merges,
           (size_t)stats.merges_rebuilt);
    open_empty(fresh, directory() + "/fresh.omen", data);
    put(fresh, data, records, 0, records.ids.size());
    optimize(fresh);
    bool good = report(measure(churned, data, records), measure(fresh, data, records));
    churned.close();
    fresh.close();
    remove_tree(directory() + "/churned.omen");
    remove_tree(directory() + "/fresh.omen");
    return good ? 0 : 1;
}
