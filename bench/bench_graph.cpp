// bench_graph.cpp: the bare graph over bytes beside hnswlib's over f32, on the same vectors in the
// same run: building with two threads, the curves of recall@10 and queries a second of one thread,
// by ef and by the stretch of struct graph_effort, and with "churn" the graph after 30 % of its
// rows were dropped. The bytes of this set are lossless, so nothing is reranked.
//
//   cc -std=c11 -O2 -I. -c bench/graph_core.c -o build/graph_core.o
//   c++ -std=c++17 -O3 -march=native -I. bench/bench_graph.cpp build/graph_core.o -o build/graph
//   GLIBC_TUNABLES=glibc.malloc.hugetlb=1 build/graph build/data [rows [index file [churn]]]
//
// The folder (or OMENDB_DATA) holds sift-dev.base.u8bin and sift-dev.query.u8bin. The index
// file keeps hnswlib's for the next run, which then has no building time of it; "-" leaves hnswlib
// out. hnswlib is compiled for this machine, the graph for any.
#include "graph_core.h"

#include "omendb.h"

#include <hnswlib/hnswlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <sched.h>
#include <time.h>

namespace
{

constexpr size_t kHits = 10;
constexpr uint32_t kM = 16, kEfConstruction = 200;
constexpr unsigned kThreads = 2;
constexpr size_t kCap = 2000; // ef of the walks with a stretch

double now()
{
    using namespace std::chrono;
    return duration<double>(steady_clock::now().time_since_epoch()).count();
}

// Of all threads. Other work on the machine falsifies it less than it does the wall clock.
double cpu_time()
{
    struct timespec time;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return double(time.tv_sec) + double(time.tv_nsec) / 1e9;
}

struct Stopwatch {
    double wall = now(), cpu = cpu_time();
    void print(const char *what) const
    {
        std::printf("%-18s %8.1f s, %8.1f s of processor\n", what, now() - wall, cpu_time() - cpu);
        std::fflush(stdout);
    }
};

struct Matrix {
    uint32_t rows = 0, dim = 0;
    std::vector<uint8_t> bytes;
    std::vector<float> floats;
};

Matrix read_matrix(const std::string &path, uint32_t limit)
{
    std::ifstream file(path, std::ios::binary);
    Matrix matrix;
    uint32_t header[2];
    if (!file.read(reinterpret_cast<char *>(header), sizeof header)) {
        std::fprintf(
            stderr,
            "%s cannot be read. Give the folder with sift-dev.*.u8bin as the argument or in "
            "OMENDB_DATA.\n",
            path.c_str());
        std::exit(1);
    }
    matrix.rows = std::min(header[0], limit);
    matrix.dim = header[1];
    matrix.bytes.resize(size_t(matrix.rows) * matrix.dim);
    file.read(reinterpret_cast<char *>(matrix.bytes.data()), std::streamsize(matrix.bytes.size()));
    matrix.floats.assign(matrix.bytes.begin(), matrix.bytes.end());
    return matrix;
}

void in_threads(unsigned threads, const std::function<void(uint32_t)> &work, uint32_t count)
{
    std::atomic<uint32_t> next{0};
    std::vector<std::thread> pool;
    for (unsigned i = 0; i < threads; i++) {
        pool.emplace_back([&] {
            for (uint32_t row; (row = next++) < count;)
                work(row);
        });
    }
    for (std::thread &thread : pool)
        thread.join();
}

// Exact nearest kHits of each query among the rows whose `hidden` is 0; an empty `hidden` hides
// none.
std::vector<uint32_t> exact(const Matrix &base, const Matrix &queries,
                            const std::vector<unsigned char> &hidden)
{
    std::vector<uint32_t> truth(size_t(queries.rows) * kHits);
    in_threads(
        kThreads,
        [&](uint32_t q) {
            std::vector<std::pair<int, uint32_t>> best;
            const uint8_t *query = &queries.bytes[size_t(q) * queries.dim];
            for (uint32_t row = 0; row < base.rows; row++) {
                const uint8_t *vector = &base.bytes[size_t(row) * base.dim];
                int distance = 0;
                if (!hidden.empty() && hidden[row])
                    continue;
                for (uint32_t i = 0; i < base.dim; i++)
                    distance += (query[i] - vector[i]) * (query[i] - vector[i]);
                if (best.size() == kHits && distance >= best.back().first)
                    continue;
                best.insert(
                    std::upper_bound(best.begin(), best.end(), std::make_pair(distance, row)),
                    {distance, row});
                if (best.size() > kHits)
                    best.pop_back();
            }
            for (size_t i = 0; i < kHits; i++)
                truth[q * kHits + i] = best[i].second;
        },
        queries.rows);
    return truth;
}

struct Point {
    double recall, rate, distances;
};

struct Effort {
    size_t ef;
    float stretch;
};

using Search = std::function<size_t(uint32_t query, const Effort &effort, uint32_t *rows)>;

Point measure(const Matrix &queries, const std::vector<uint32_t> &truth, const Effort &effort,
              int repeats, const Search &search)
{
    std::vector<uint32_t> rows(kHits);
    size_t hits = 0;
    double best = 1e9;
    for (int repeat = 0; repeat < repeats; repeat++) {
        const double start = cpu_time();
        hits = 0;
        for (uint32_t q = 0; q < queries.rows; q++) {
            const size_t count = search(q, effort, rows.data());
            const uint32_t *right = &truth[q * kHits];
            for (size_t i = 0; i < count; i++)
                hits += std::find(right, right + kHits, rows[i]) != right + kHits;
        }
        best = std::min(best, cpu_time() - start);
    }
    return {double(hits) / double(queries.rows * kHits), queries.rows / best, 0};
}

// Between the two points around the recall; zeros outside of the curve.
Point point_at(const std::vector<Point> &curve, double recall)
{
    for (size_t i = 1; i < curve.size(); i++) {
        const Point &a = curve[i - 1], &b = curve[i];
        if (a.recall <= recall && recall <= b.recall && b.recall > a.recall) {
            const double share = (recall - a.recall) / (b.recall - a.recall);
            return {recall, a.rate + (b.rate - a.rate) * share,
                    a.distances + (b.distances - a.distances) * share};
        }
    }
    return {recall, 0, 0};
}

void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu >= 0) {
        CPU_SET(cpu, &set);
    } else {
        for (int i = 0; i < 64; i++)
            CPU_SET(i, &set);
    }
    (void)sched_setaffinity(0, sizeof set, &set);
}

using Index = hnswlib::HierarchicalNSW<float>;

std::unique_ptr<Index> build_hnswlib(hnswlib::L2Space &space, const Matrix &base,
                                     const std::string &file)
{
    if (!file.empty() && std::ifstream(file).good())
        return std::make_unique<Index>(&space, file);
    auto index = std::make_unique<Index>(&space, base.rows, kM, kEfConstruction, 42);
    const Stopwatch watch;
    in_threads(
        kThreads, [&](uint32_t row) { index->addPoint(&base.floats[size_t(row) * base.dim], row); },
        base.rows);
    watch.print("hnswlib build");
    if (!file.empty())
        index->saveIndex(file);
    return index;
}

Search ours(graph_core *core, const Matrix &queries, const std::vector<unsigned char> &hidden)
{
    const unsigned char *bytes = hidden.empty() ? nullptr : hidden.data();
    const uint8_t *vectors = queries.bytes.data();
    const size_t dim = queries.dim;
    return [=](uint32_t query, const Effort &effort, uint32_t *rows) {
        return graph_core_search(core, vectors + query * dim, effort.ef, kHits, effort.stretch,
                                 bytes, rows);
    };
}

// A curve of ours: what is measured, and distances of a query.
Point measure_ours(graph_core *core, const Matrix &queries, const std::vector<uint32_t> &truth,
                   const Effort &effort, int repeats)
{
    uint64_t expanded, distances;
    graph_core_counters(core, &expanded, &distances);
    Point point = measure(queries, truth, effort, repeats, ours(core, queries, {}));
    graph_core_counters(core, &expanded, &distances);
    point.distances = double(distances) / double(repeats) / queries.rows;
    return point;
}

void print_at(const char *name, const std::vector<Point> &curve, const std::vector<Point> &them,
              double recall)
{
    const Point point = point_at(curve, recall);
    const double theirs = point_at(them, recall).rate;
    std::printf("at %.3f %-10s %9.0f q/s, %5.2f times hnswlib's %.0f, %6.0f distances of %.1f ns\n",
                recall, name, point.rate, theirs > 0 ? point.rate / theirs : 0, theirs,
                point.distances, point.rate > 0 ? 1e9 / point.rate / point.distances : 0);
}

void compare(Index &index, graph_core *core, const Matrix &queries,
             const std::vector<uint32_t> &truth, int repeats)
{
    const Search theirs = [&](uint32_t query, const Effort &effort, uint32_t *rows) {
        index.setEf(effort.ef);
        auto found = index.searchKnn(&queries.floats[size_t(query) * queries.dim], kHits);
        const size_t count = found.size();
        for (size_t i = 0; i < count; i++, found.pop())
            rows[i] = uint32_t(found.top().second);
        return count;
    };
    std::vector<Point> by_ef, by_stretch, them;
    std::printf("   ef   hnswlib recall, q/s       graph recall, q/s   ratio   distances\n");
    for (size_t ef :
         {10, 16, 24, 32, 40, 48, 64, 80, 100, 128, 160, 200, 260, 320, 400, 600, 900, 1300}) {
        them.push_back(measure(queries, truth, {ef, 0}, repeats, theirs));
        by_ef.push_back(measure_ours(core, queries, truth, {ef, 0}, repeats));
        std::printf("%5zu   %.4f %9.0f          %.4f %9.0f   %5.2f   %9.0f\n", ef,
                    them.back().recall, them.back().rate, by_ef.back().recall, by_ef.back().rate,
                    by_ef.back().rate / them.back().rate, by_ef.back().distances);
        std::fflush(stdout);
    }
    std::printf("stretch   recall       q/s   distances\n");
    for (float stretch : {1.04f, 1.08f, 1.12f, 1.16f, 1.2f, 1.24f, 1.28f, 1.32f, 1.38f, 1.46f}) {
        by_stretch.push_back(measure_ours(core, queries, truth, {kCap, stretch}, repeats));
        std::printf("   %.2f   %.4f %9.0f   %9.0f\n", double(stretch), by_stretch.back().recall,
                    by_stretch.back().rate, by_stretch.back().distances);
        std::fflush(stdout);
    }
    for (double recall : {0.90, 0.95, 0.99, 0.999}) {
        print_at("by ef", by_ef, them, recall);
        print_at("by stretch", by_stretch, them, recall);
    }
}

void churn(graph_core *core, const Matrix &base, const Matrix &queries, int repeats)
{
    std::vector<unsigned char> hidden(base.rows), keep(base.rows);
    std::vector<uint32_t> to_new(base.rows);
    uint32_t kept = 0;
    for (uint32_t row = 0; row < base.rows; row++) {
        hidden[row] = (row * 2654435761u >> 8) % 10 < 3;
        keep[row] = !hidden[row];
        to_new[row] = kept;
        kept += keep[row];
    }
    std::vector<uint32_t> truth = exact(base, queries, hidden);
    const Search filtered = ours(core, queries, hidden);
    std::vector<uint8_t> vectors;
    for (uint32_t row = 0; row < base.rows; row++)
        if (keep[row])
            vectors.insert(vectors.end(), &base.bytes[size_t(row) * base.dim],
                           &base.bytes[size_t(row) * base.dim] + base.dim);
    const Stopwatch adopting;
    graph_core *adopted = graph_core_adopt(core, keep.data(), kThreads);
    adopting.print("30 % dropped");
    graph_core_check(adopted);
    const graph_core_settings settings = {kM, kEfConstruction, OMENDB_U8, base.dim, base.dim};
    const Stopwatch building;
    graph_core *fresh = graph_core_build(&settings, vectors.data(), kept, kThreads);
    building.print("fresh build");
    std::vector<uint32_t> new_truth = truth;
    for (uint32_t &row : new_truth)
        row = to_new[row];
    for (size_t ef : {20, 40, 80, 160, 320}) {
        const Point a = measure(queries, truth, {ef, 0}, repeats, filtered);
        const Point b = measure(queries, new_truth, {ef, 0}, repeats, ours(adopted, queries, {}));
        const Point c = measure(queries, new_truth, {ef, 0}, repeats, ours(fresh, queries, {}));
        std::printf("%5zu  filtered %.4f %7.0f   adopted %.4f %7.0f   fresh %.4f %7.0f\n", ef,
                    a.recall, a.rate, b.recall, b.rate, c.recall, c.rate);
    }
    graph_core_destroy(adopted);
    graph_core_destroy(fresh);
}

} // namespace

int main(int argc, char **argv)
{
    const char *given = argc > 1 ? argv[1] : std::getenv("OMENDB_DATA");
    const std::string folder = given ? given : "build/data";
    const uint32_t rows = argc > 2 ? uint32_t(std::atoi(argv[2])) : 1000000;
    const std::string file = argc > 3 ? argv[3] : "";
    const Matrix base = read_matrix(folder + "/sift-dev.base.u8bin", rows);
    const Matrix queries = read_matrix(folder + "/sift-dev.query.u8bin", 2000);
    const std::vector<uint32_t> truth = exact(base, queries, {});
    hnswlib::L2Space space(base.dim);

    std::unique_ptr<Index> index = file == "-" ? nullptr : build_hnswlib(space, base, file);
    const Stopwatch watch;
    const graph_core_settings settings = {kM, kEfConstruction, OMENDB_U8, base.dim, base.dim};
    graph_core *core = graph_core_build(&settings, base.bytes.data(), base.rows, kThreads);
    watch.print("graph build");
    std::printf("graph memory       %8.0f MB\n", double(graph_core_bytes(core)) / 1e6);
    graph_core_check(core);
    if (index != nullptr) {
        pin(1);
        compare(*index, core, queries, truth, 3);
        pin(-1);
    }
    if (argc > 4 && std::strcmp(argv[4], "churn") == 0) {
        churn(core, base, queries, 2);
    }
    graph_core_destroy(core);
    return 0;
}
