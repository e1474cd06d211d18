// bench_filter.cpp: searches under a condition (omendb_query.match): recall@10, queries a second
// and work for matches that are many or few, near the query or far from it, and with deleted rows.
//
// Each row has attributes that the benchmark makes: a random number, by which a share of the rows
// matches, and the nearest of 64 centres, by which all rows of one part of the space match: that of
// the query, the next one, or the farthest. Truth is by brute force among the rows that match. The
// recall of a cell is to be not more than 0.005 below that of the same effort without a condition,
// which is the cell "all" (of the undeleted rows where 30 of 100 are deleted: "all, 30 % deleted").
//
// OmenDB is measured as bench_search does; its callback looks the attribute up in an array. hnswlib
// has filters since 0.7 (Debian 12 has 0.6): HNSWLIB=folder tells bench/run.sh where a later one
// is; without it hnswlib is left out. It is measured over as many queries as it answers in
// kPeerSeconds. Rates are by the CPU time of the searching thread.
//
//   OMENDB_BENCH_EFFORTS  "64 1.2": efs, and from 1 to 9.99 stretches; default "100 1.16"

#include "bench.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <sstream>

#if __has_include(<hnswlib/stop_condition.h>)
#define HAVE_HNSWLIB 1
#include <hnswlib/hnswlib.h>
#else
#define HAVE_HNSWLIB 0
#endif

using namespace bench;

namespace
{

constexpr size_t kCentres = 64;
constexpr double kDeletedShare = 0.3;
constexpr double kPeerSeconds = 4;
constexpr uint32_t kNone = UINT32_MAX;

uint64_t mix(uint64_t value) // the finish of splitmix64
{
    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return value ^ (value >> 31);
}

enum class Kind { All, Random, Own, Nearest, Farthest };

struct Cell {
    const char *name;
    Kind kind;
    double share; // of Random
    bool deleted;
};

const Cell kCells[] = {
    {"all", Kind::All, 1, false},
    {"random 100 %", Kind::Random, 1, false},
    {"random 50 %", Kind::Random, 0.5, false},
    {"random 30 %", Kind::Random, 0.3, false},
    {"random 10 %", Kind::Random, 0.1, false},
    {"random 3 %", Kind::Random, 0.03, false},
    {"random 1 %", Kind::Random, 0.01, false},
    {"random 0.3 %", Kind::Random, 0.003, false},
    {"random 0.1 %", Kind::Random, 0.001, false},
    {"random 0.01 %", Kind::Random, 0.0001, false},
    {"random 0.001 %", Kind::Random, 0.00001, false},
    {"own part", Kind::Own, 0, false},
    {"next part", Kind::Nearest, 0, false},
    {"farthest part", Kind::Farthest, 0, false},
    {"all, 30 % deleted", Kind::All, 1, true},
    {"random 30 %, 30 % deleted", Kind::Random, 0.3, true},
    {"random 3 %, 30 % deleted", Kind::Random, 0.03, true},
    {"random 0.1 %, 30 % deleted", Kind::Random, 0.001, true},
    {"own part, 30 % deleted", Kind::Own, 0, true},
    {"farthest part, 30 % deleted", Kind::Farthest, 0, true},
};

struct Attributes {
    std::vector<uint32_t> random;  // of each row
    std::vector<uint8_t> part;     // the nearest centre of each row
    std::vector<uint8_t> deleted;  // of each row: 1
    std::vector<uint8_t> of_query; // kCentres places a query: centres, nearest first
};

// What a row must be for one query of a cell.
struct Condition {
    const Attributes *attributes = nullptr;
    const Cell *cell = nullptr;
    uint64_t limit = 0; // of Random
    uint8_t part = 0;   // of the rest

    Condition(const Attributes &of, const Cell &in, size_t query) : attributes(&of), cell(&in)
    {
        limit = (uint64_t)std::llround(in.share * 4294967296.0);
        size_t place = in.kind == Kind::Nearest ? 1 : in.kind == Kind::Farthest ? kCentres - 1 : 0;
        part = of.of_query[query * kCentres + place];
    }

    bool operator()(uint64_t row) const
    {
        if (cell->kind == Kind::Random)
            return attributes->random[row] < limit;
        return cell->kind == Kind::All || attributes->part[row] == part;
    }
};

int match(void *context, uint64_t id)
{
    return (*static_cast<const Condition *>(context))(id);
}

// Some rounds of k-means over a sample.
std::vector<float> make_centres(const Dataset &data)
{
    constexpr size_t kRounds = 5;
    size_t sample = std::min<size_t>(data.rows, 20000);
    std::vector<float> rows(sample * data.dim), centres(kCentres * data.dim);
    for (size_t i = 0; i < sample; i++)
        data.vector(i * (data.rows / sample), &rows[i * data.dim]);
    for (size_t c = 0; c < kCentres; c++)
        std::copy_n(&rows[c * (sample / kCentres) * data.dim], data.dim, &centres[c * data.dim]);
    for (size_t round = 0; round < kRounds; round++) {
        std::vector<float> sums(kCentres * data.dim);
        std::vector<size_t> counts(kCentres);
        for (size_t i = 0; i < sample; i++) {
            size_t best = 0;
            float best_distance = INFINITY;
            for (size_t c = 0; c < kCentres; c++) {
                float distance = 0;
                for (size_t d = 0; d < data.dim; d++) {
                    float difference = rows[i * data.dim + d] - centres[c * data.dim + d];
                    distance += difference * difference;
                }
                if (distance < best_distance) {
                    best_distance = distance;
                    best = c;
                }
            }
            counts[best]++;
            for (size_t d = 0; d < data.dim; d++)
                sums[best * data.dim + d] += rows[i * data.dim + d];
        }
        for (size_t c = 0; c < kCentres; c++)
            for (size_t d = 0; d < data.dim && counts[c] != 0; d++)
                centres[c * data.dim + d] = sums[c * data.dim + d] / (float)counts[c];
    }
    return centres;
}

// The centres, nearest first.
std::vector<uint8_t> order_centres(const std::vector<float> &centres, const float *vector,
                                   size_t dim)
{
    std::vector<float> distances(kCentres);
    std::vector<uint8_t> order(kCentres);
    for (size_t c = 0; c < kCentres; c++) {
        order[c] = (uint8_t)c;
        for (size_t d = 0; d < dim; d++) {
            float difference = vector[d] - centres[c * dim + d];
            distances[c] += difference * difference;
        }
    }
    std::sort(order.begin(), order.end(),
              [&](uint8_t a, uint8_t b) { return distances[a] < distances[b]; });
    return order;
}

Attributes make_attributes(const Dataset &data)
{
    Attributes made;
    std::vector<float> centres = make_centres(data);
    made.random.resize(data.rows);
    made.part.resize(data.rows);
    made.deleted.resize(data.rows);
    made.of_query.resize(data.query_count * kCentres);
    run_threads(kBuildThreads, [&](int thread) {
        std::vector<float> vector(data.dim);
        for (size_t row = (size_t)thread; row < data.rows; row += kBuildThreads) {
            data.vector(row, vector.data());
            made.random[row] = (uint32_t)mix(row + 1);
            made.part[row] = order_centres(centres, vector.data(), data.dim)[0];
            made.deleted[row] = (double)(mix(row + 1) >> 32) < kDeletedShare * 4294967296.0;
        }
    });
    for (size_t q = 0; q < data.query_count; q++) {
        std::vector<uint8_t> order = order_centres(centres, &data.queries[q * data.dim], data.dim);
        std::copy(order.begin(), order.end(), &made.of_query[q * kCentres]);
    }
    return made;
}

uint32_t squared_distance(const uint8_t *a, const uint8_t *b, size_t dim)
{
    int sum = 0;
    for (size_t i = 0; i < dim; i++) {
        int difference = (int)a[i] - (int)b[i];
        sum += difference * difference;
    }
    return (uint32_t)sum;
}

using Nearest = std::vector<std::pair<uint32_t, uint32_t>>; // distance, row

// The rows of a cell nearest to a query, of the distances of all rows.
Nearest nearest_of(const Attributes &attributes, const Cell &cell, size_t query,
                   const std::vector<uint32_t> &distances)
{
    Condition condition(attributes, cell, query);
    Nearest best;
    for (uint32_t row = 0; row < distances.size(); row++) {
        if (best.size() == kHits && distances[row] >= best.front().first)
            continue;
        if ((cell.deleted && attributes.deleted[row]) || !condition(row))
            continue;
        best.emplace_back(distances[row], row);
        std::push_heap(best.begin(), best.end());
        if (best.size() > kHits) {
            std::pop_heap(best.begin(), best.end());
            best.pop_back();
        }
    }
    return best;
}

struct Truth {
    std::vector<uint32_t> rows; // kHits places a query; kNone past those that exist
    double share = 0;           // of the rows that match, in the mean
};

std::vector<Truth> make_truth(const Dataset &data, const Attributes &attributes)
{
    constexpr size_t cells = std::size(kCells);
    std::vector<Truth> truth(cells);
    for (Truth &one : truth)
        one.rows.assign(data.query_count * kHits, kNone);
    Progress progress("truth", data.query_count);
    run_threads(kBuildThreads, [&](int thread) {
        std::vector<uint32_t> distances(data.rows);
        std::vector<uint8_t> query(data.dim);
        for (size_t q = (size_t)thread; q < data.query_count; q += kBuildThreads) {
            std::copy_n(&data.queries[q * data.dim], data.dim, query.begin());
            for (size_t row = 0; row < data.rows; row++)
                distances[row] =
                    squared_distance(query.data(), &data.bytes[row * data.dim], data.dim);
            for (size_t c = 0; c < cells; c++) {
                Nearest best = nearest_of(attributes, kCells[c], q, distances);
                for (size_t i = 0; i < best.size(); i++)
                    truth[c].rows[q * kHits + i] = best[i].second;
            }
            if (thread == 0)
                progress.update(q);
        }
    });
    return truth;
}

struct Result {
    double recall = 0, rate = 0, distances = 0, tested = 0, selectivity = 0, p99_us = 0;
    size_t queries = 0, short_of = 0; // searches with fewer than min(k, matches) hits
    size_t scans = 0, given_up = 0;   // searches
};

// Counts hits and misses of one query.
void judge(const Truth &truth, size_t query, const uint64_t *ids, size_t count, size_t &hits,
           size_t &wanted, size_t &short_of)
{
    size_t exist = 0;
    for (size_t i = 0; i < kHits; i++) {
        uint32_t row = truth.rows[query * kHits + i];
        exist += row != kNone;
        hits += row != kNone && std::count(ids, ids + count, (uint64_t)row) != 0;
    }
    wanted += exist;
    short_of += count < exist;
}

void set_effort(omendb_query &query, double effort)
{
    query.ef = effort < 10 ? 0 : (uint32_t)effort;
    query.stretch = effort < 10 ? (float)effort : 0.0f;
}

Result measure(const Database &database, const Dataset &data, const Attributes &attributes,
               const Cell &cell, const Truth &truth, double effort)
{
    Result result;
    size_t hits = 0, wanted = 0, count;
    std::vector<double> times;
    uint64_t ids[kHits];
    float distances[kHits];
    double cpu = 0;
    for (size_t q = 0; q < data.query_count; q++) {
        Condition condition(attributes, cell, q);
        omendb_query query = OMENDB_QUERY_INIT;
        omendb_explain explain = OMENDB_EXPLAIN_INIT;
        query.vector = &data.queries[q * data.dim];
        query.k = kHits;
        query.explain = &explain;
        query.match = cell.kind == Kind::All ? nullptr : match;
        query.match_context = cell.kind == Kind::All ? nullptr : &condition;
        set_effort(query, effort);
        double begun = thread_cpu_seconds();
        check(omendb_search(database.collection, nullptr, &query, ids, distances, &count),
              "omendb_search");
        double took = thread_cpu_seconds() - begun;
        cpu += took;
        times.push_back(took * 1e6);
        judge(truth, q, ids, count, hits, wanted, result.short_of);
        result.distances += (double)explain.distances;
        result.tested += (double)explain.matches_tested;
        result.selectivity += explain.selectivity;
        result.scans += (explain.path & OMENDB_PATH_WALK) == 0;
        result.given_up += (explain.path & OMENDB_PATH_WALK_THEN_SCAN) != 0;
    }
    double queries = (double)data.query_count;
    result.queries = data.query_count;
    result.recall = wanted == 0 ? 1.0 : (double)hits / (double)wanted;
    result.rate = queries / cpu;
    result.p99_us = percentile(times, 0.99);
    result.distances /= queries;
    result.tested /= queries;
    result.selectivity /= queries;
    return result;
}

#if HAVE_HNSWLIB
using Index = hnswlib::HierarchicalNSW<float>;

struct Filter : hnswlib::BaseFilterFunctor {
    const Condition &condition;
    bool deletes;
    Filter(const Condition &of, bool with_deleted) : condition(of), deletes(with_deleted)
    {
    }
    bool operator()(hnswlib::labeltype row) override
    {
        return !(deletes && condition.attributes->deleted[row]) && condition(row);
    }
};

Result measure_peer(Index &index, const Dataset &data, const Attributes &attributes,
                    const Cell &cell, const Truth &truth, size_t ef)
{
    Result result;
    size_t hits = 0, wanted = 0;
    double cpu = 0;
    index.setEf(ef);
    for (size_t q = 0; q < data.query_count && cpu < kPeerSeconds; q++, result.queries++) {
        Condition condition(attributes, cell, q);
        Filter filter(condition, cell.deleted);
        bool filters = cell.kind != Kind::All || cell.deleted;
        uint64_t ids[kHits];
        size_t count = 0;
        double begun = thread_cpu_seconds();
        auto found =
            index.searchKnn(&data.queries[q * data.dim], kHits, filters ? &filter : nullptr);
        cpu += thread_cpu_seconds() - begun;
        for (; !found.empty(); found.pop())
            ids[count++] = found.top().second;
        judge(truth, q, ids, count, hits, wanted, result.short_of);
    }
    result.recall = wanted == 0 ? 1.0 : (double)hits / (double)wanted;
    result.rate = (double)result.queries / cpu;
    return result;
}
#endif

std::vector<double> efforts()
{
    const char *given = getenv("OMENDB_BENCH_EFFORTS");
    std::istringstream text(given && *given ? given : "100 1.16");
    std::vector<double> found;
    for (double effort; text >> effort;)
        found.push_back(effort);
    return found;
}

void delete_some(const Database &database, const Attributes &attributes)
{
    auto is_deleted = [](void *context, uint64_t id) {
        return (int)static_cast<const Attributes *>(context)->deleted[id];
    };
    check(omendb_delete_matching(database.collection, nullptr, nullptr, is_deleted,
                                 const_cast<Attributes *>(&attributes), nullptr),
          "omendb_delete_matching");
}

void print_line(Csv &csv, const Dataset &data, const char *library, double effort, const Cell &cell,
                const Result &result, double base)
{
    printf("%-8s %6g %-28s %8.4f %+8.4f %9.0f %9.1f %9.0f %9.0f %9.6f %6zu %6zu %6zu %6zu\n",
           library, effort, cell.name, result.recall, result.recall - base, result.rate,
           result.p99_us, result.distances, result.tested, result.selectivity, result.scans,
           result.given_up, result.short_of, result.queries);
    fflush(stdout);
    csv.line("%zu,%s,%g,%s,%.5f,%.5f,%.1f,%.1f,%.1f,%.1f,%.8f,%zu,%zu,%zu,%zu", data.rows, library,
             effort, cell.name, result.recall, base, result.rate, result.p99_us, result.distances,
             result.tested, result.selectivity, result.scans, result.given_up, result.short_of,
             result.queries);
}

// The database of all rows, or a copy from which some are deleted: the snapshot, taken before,
// keeps a merge from dropping them.
omendb_txn *open_database(Database &database, bool deleted, const Dataset &data,
                          const Attributes &attributes)
{
    std::string path = index_path("OmenDB"), copy = index_path("OmenDB-deleted");
    omendb_txn *snapshot = nullptr;
    if (!exists(path))
        build_omendb(path, data);
    if (deleted)
        copy_tree(path, copy);
    database.options.must_exist = 1;
    database.options.threads = 0; // nothing goes on beside what is measured
    check(omendb_open((deleted ? copy : path).c_str(), &database.options, &database.db),
          "omendb_open");
    check(omendb_collection_open(database.db, collection_name().c_str(), nullptr,
                                 &database.collection),
          "omendb_collection_open");
    check(omendb_txn_begin(database.db, OMENDB_READ_ONLY, &snapshot), "omendb_txn_begin");
    if (deleted)
        delete_some(database, attributes);
    return snapshot;
}

} // namespace

int main()
{
    if (!getenv("OMENDB_BENCH_QUERIES"))
        setenv("OMENDB_BENCH_QUERIES", "1000", 1);
    Dataset data = load_dataset(false);
    if (data.bytes.empty()) {
        fprintf(stderr, "bench_filter needs a set of bytes, such as sift\n");
        return 1;
    }
    Attributes attributes = make_attributes(data);
    std::vector<Truth> truth = make_truth(data, attributes);
    const char *only = getenv("OMENDB_BENCH_CELLS"); // part of their names
    Csv csv("filter.csv",
            "rows,library,effort,cell,recall,recall_without,queries_per_second,p99_us,"
            "distances,tested,selectivity,scans,given_up,short_of,queries");
    printf("%s, %zu x %zu, %zu queries, recall@%zu, one thread\n%s\n\n", data.name.c_str(),
           data.rows, data.dim, data.query_count, kHits, machine().c_str());
    printf("%-8s %6s %-28s %8s %8s %9s %9s %9s %9s %9s %6s %6s %6s %6s\n", "library", "effort",
           "cell", "recall", "-without", "queries/s", "p99 us", "distances", "tested", "share",
           "scans", "gaveup", "short", "of");
    pin_to_core((int)setting("OMENDB_BENCH_CORE", 0));
    for (double effort : efforts()) {
        double base[2] = {0, 0};
        for (int deleted = 0; deleted < 2; deleted++) {
            Database database;
            omendb_txn *snapshot = open_database(database, deleted != 0, data, attributes);
            for (size_t c = 0; c < std::size(kCells); c++) {
                const Cell &cell = kCells[c];
                if (cell.deleted != (deleted != 0) ||
                    (only && cell.kind != Kind::All && !strstr(cell.name, only)))
                    continue;
                Result result = measure(database, data, attributes, cell, truth[c], effort);
                if (cell.kind == Kind::All) {
                    // The first round warms up: segments that are searched are copied into memory.
                    check(omendb_work(database.db, 10000000, nullptr), "omendb_work");
                    result = measure(database, data, attributes, cell, truth[c], effort);
                    base[deleted] = result.recall;
                }
                print_line(csv, data, "OmenDB", effort, cell, result, base[deleted]);
            }
            omendb_txn_rollback(snapshot);
            database.close();
            remove_tree(index_path("OmenDB-deleted"));
        }
#if HAVE_HNSWLIB
        if (effort >= 10 && exists(index_path("hnswlib")) && setting("OMENDB_BENCH_HNSWLIB", 1)) {
            hnswlib::L2Space space(data.dim);
            Index index(&space, index_path("hnswlib"));
            double peer_base = 0;
            for (size_t c = 0; c < std::size(kCells); c++) {
                if (only && kCells[c].kind != Kind::All && !strstr(kCells[c].name, only))
                    continue;
                Result result =
                    measure_peer(index, data, attributes, kCells[c], truth[c], (size_t)effort);
                peer_base = kCells[c].kind == Kind::All ? result.recall : peer_base;
                print_line(csv, data, "hnswlib", effort, kCells[c], result, peer_base);
            }
        }
#endif
    }
    return 0;
}
