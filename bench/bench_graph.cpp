// bench_graph.cpp: the bare graph beside hnswlib's, on the same vectors in the same run: building
// with two threads (one by one, refined, in bulk), memory, the curves of recall@10 over distances
// and queries a second of one thread, by ef and by the stretch of struct graph_effort, and with
// "churn" each graph after 30 % of its rows were dropped.
//
//   cc -std=c11 -O2 -I. -c bench/graph_core.c -o build/graph_core.o
//   c++ -std=c++17 -O3 -march=native -I. bench/bench_graph.cpp build/graph_core.o -o build/graph
//   GLIBC_TUNABLES=glibc.malloc.hugetlb=1 build/graph sift|floats [rows [ways [file [churn]]]]
//
// sift: the folder OMENDB_DATA (build/data) holds sift-dev.base.u8bin and sift-dev.query.u8bin; our
// graph has them as u8, hnswlib as f32. The bytes are lossless, so nothing is reranked. floats:
// clusters of 384-d f32 with a falling spectrum, for both. ways: letters of h (hnswlib, measured in
// turns with each of the others), i (insertion), r (insertion, then refining), b (bulk); "hirb"
// without it. The file keeps hnswlib's index for the next run, which then has no building time of
// it; "-": none is kept. hnswlib is compiled for this machine, the graph for any.
#include "graph_core.h"

#include "omendb.h"

#include <hnswlib/hnswlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sched.h>
#include <time.h>

namespace
{

constexpr size_t kHits = 10;
constexpr uint32_t kM = 16, kEfConstruction = 200, kQueries = 2000;
constexpr unsigned kThreads = 2;
constexpr size_t kCap = 2000; // ef of the walks with a stretch
constexpr int kRepeats = 3;

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
        std::printf("%-14s %8.1f s, %8.1f s of processor\n", what, now() - wall, cpu_time() - cpu);
        std::fflush(stdout);
    }
};

// Rows as floats for hnswlib, and as the graph has them.
struct Matrix {
    uint32_t rows = 0, dim = 0;
    std::vector<uint8_t> bytes; // empty: the graph has floats, too
    std::vector<float> floats;

    size_t row_bytes() const
    {
        return bytes.empty() ? dim * sizeof(float) : dim;
    }
    const uint8_t *row(size_t row) const
    {
        const void *all = bytes.empty() ? static_cast<const void *>(floats.data()) : bytes.data();
        return static_cast<const uint8_t *>(all) + row * row_bytes();
    }
    const float *row_floats(size_t row) const
    {
        return &floats[row * dim];
    }
    graph_core_settings settings() const
    {
        return {kM,  kEfConstruction, bytes.empty() ? OMENDB_F32 : OMENDB_U8, OMENDB_L2,
                dim, row_bytes()};
    }
};

Matrix read_matrix(const std::string &path, uint32_t limit)
{
    std::ifstream file(path, std::ios::binary);
    Matrix matrix;
    uint32_t header[2];
    if (!file.read(reinterpret_cast<char *>(header), sizeof header)) {
        std::fprintf(stderr, "%s cannot be read: OMENDB_DATA names the folder of sift-dev\n",
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

// Rows around 500 centers that differ in 48 random directions of falling weight, and a little in
// all: an intrinsic dimension far below 384, as that of embeddings. The last kQueries are queries.
Matrix make_floats(uint32_t rows)
{
    constexpr uint32_t dim = 384, directions = 48, centers = 500;
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<float> center(size_t(centers) * dim), direction(size_t(directions) * dim);
    for (float &x : center)
        x = normal(random);
    for (float &x : direction)
        x = normal(random);
    Matrix matrix;
    matrix.rows = rows;
    matrix.dim = dim;
    matrix.floats.resize(size_t(rows) * dim);
    for (uint32_t row = 0; row < rows; row++) {
        float *vector = &matrix.floats[size_t(row) * dim];
        std::copy_n(&center[random() % centers * dim], dim, vector);
        for (uint32_t i = 0; i < directions; i++) {
            const float weight = normal(random) * 1.5f / std::sqrt(float(1 + i));
            for (uint32_t j = 0; j < dim; j++)
                vector[j] += weight * direction[size_t(i) * dim + j];
        }
        for (uint32_t j = 0; j < dim; j++)
            vector[j] += 0.1f * (float(random() >> 8) / float(1 << 24) - 0.5f);
    }
    return matrix;
}

Matrix split_queries(Matrix &matrix)
{
    Matrix queries;
    queries.rows = kQueries;
    queries.dim = matrix.dim;
    matrix.rows -= kQueries;
    queries.floats.assign(matrix.floats.begin() + std::ptrdiff_t(matrix.rows) * matrix.dim,
                          matrix.floats.end());
    matrix.floats.resize(size_t(matrix.rows) * matrix.dim);
    return queries;
}

void in_threads(const std::function<void(uint32_t)> &work, uint32_t count)
{
    std::atomic<uint32_t> next{0};
    std::vector<std::thread> pool;
    for (unsigned i = 0; i < kThreads; i++) {
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
    hnswlib::L2Space space(base.dim);
    const auto distance_of = space.get_dist_func();
    in_threads(
        [&](uint32_t q) {
            std::vector<std::pair<float, uint32_t>> best;
            for (uint32_t row = 0; row < base.rows; row++) {
                if (!hidden.empty() && hidden[row])
                    continue;
                const float distance = distance_of(queries.row_floats(q), base.row_floats(row),
                                                   space.get_dist_func_param());
                if (best.size() == kHits && distance >= best.back().first)
                    continue;
                const auto hit = std::make_pair(distance, row);
                best.insert(std::upper_bound(best.begin(), best.end(), hit), hit);
                if (best.size() > kHits)
                    best.pop_back();
            }
            for (size_t i = 0; i < kHits; i++)
                truth[q * kHits + i] = best[i].second;
        },
        queries.rows);
    return truth;
}

struct Effort {
    size_t ef;
    float stretch;
};

struct Counts {
    uint64_t distances, hops;
};

struct Point {
    double recall, rate, distances, hops;
};

using Curve = std::vector<Point>;

// A finished graph.
struct Graph {
    const char *name;
    std::function<size_t(uint32_t query, const Effort &effort, uint32_t *rows)> search;
    std::function<void(bool)> count;     // whether the following searches are counted
    std::function<Counts()> take_counts; // since the last call
};

// Hits of all queries.
size_t search_all(const Graph &graph, const Matrix &queries, const std::vector<uint32_t> &truth,
                  const Effort &effort)
{
    uint32_t rows[kHits];
    size_t hits = 0;
    for (uint32_t q = 0; q < queries.rows; q++) {
        const size_t count = graph.search(q, effort, rows);
        const uint32_t *right = &truth[size_t(q) * kHits];
        for (size_t i = 0; i < count; i++)
            hits += std::find(right, right + kHits, rows[i]) != right + kHits;
    }
    return hits;
}

// Counts are of a run of their own: hnswlib is slower when it counts.
Point measure(const Graph &graph, const Matrix &queries, const std::vector<uint32_t> &truth,
              const Effort &effort)
{
    double best = 1e9;
    for (int repeat = 0; repeat < kRepeats; repeat++) {
        const double start = cpu_time();
        (void)search_all(graph, queries, truth, effort);
        best = std::min(best, cpu_time() - start);
    }
    (void)graph.take_counts();
    graph.count(true);
    const size_t hits = search_all(graph, queries, truth, effort);
    graph.count(false);
    const Counts counts = graph.take_counts();
    return {double(hits) / double(queries.rows * kHits), queries.rows / best,
            double(counts.distances) / queries.rows, double(counts.hops) / queries.rows};
}

// Between the two points around the recall; zeros outside of the curve.
Point point_at(const Curve &curve, double recall)
{
    for (size_t i = 1; i < curve.size(); i++) {
        const Point &a = curve[i - 1], &b = curve[i];
        if (a.recall <= recall && recall <= b.recall && b.recall > a.recall) {
            const double share = (recall - a.recall) / (b.recall - a.recall);
            return {recall, a.rate + (b.rate - a.rate) * share,
                    a.distances + (b.distances - a.distances) * share,
                    a.hops + (b.hops - a.hops) * share};
        }
    }
    return {recall, 0, 0, 0};
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

void print_at(const char *name, const Curve &curve, const Curve &them, double recall)
{
    const Point point = point_at(curve, recall);
    const double theirs = point_at(them, recall).rate;
    if (point.rate == 0)
        return;
    std::printf("at %.3f %-10s %9.0f q/s, %6.0f distances of %.1f ns", recall, name, point.rate,
                point.distances, 1e9 / point.rate / point.distances);
    if (theirs > 0)
        std::printf(", %5.2f times hnswlib's %.0f", point.rate / theirs, theirs);
    std::printf("\n");
}

void print_row(const char *effort, const char *name, const Point &point)
{
    std::printf("%7s  %-10s  %.4f  %9.0f  %9.0f  %7.1f\n", effort, name, point.recall, point.rate,
                point.distances, point.hops);
    std::fflush(stdout);
}

Curve print_by_stretch(const Graph &graph, const Matrix &queries,
                       const std::vector<uint32_t> &truth)
{
    Curve curve;
    std::printf("stretch\n");
    for (float stretch : {1.04f, 1.08f, 1.12f, 1.16f, 1.2f, 1.24f, 1.28f, 1.32f, 1.38f, 1.46f}) {
        char effort[16];
        std::snprintf(effort, sizeof effort, "%.2f", double(stretch));
        curve.push_back(measure(graph, queries, truth, {kCap, stretch}));
        print_row(effort, graph.name, curve.back());
    }
    return curve;
}

// By ef, in turns with hnswlib, whose curve is `them`.
Curve print_by_ef(const Graph &graph, const Graph *hnswlib, Curve &them, const Matrix &queries,
                  const std::vector<uint32_t> &truth)
{
    Curve curve;
    std::printf("     ef  graph       recall        q/s  distances     hops\n");
    for (size_t ef :
         {10, 16, 24, 32, 40, 48, 64, 80, 100, 128, 160, 200, 260, 320, 400, 600, 900, 1300}) {
        const std::string effort = std::to_string(ef);
        if (hnswlib != nullptr) {
            them.push_back(measure(*hnswlib, queries, truth, {ef, 0}));
            print_row(effort.c_str(), hnswlib->name, them.back());
        }
        curve.push_back(measure(graph, queries, truth, {ef, 0}));
        print_row(effort.c_str(), graph.name, curve.back());
        if (curve.back().recall > 0.9995 && (them.empty() || them.back().recall > 0.9995))
            break;
    }
    return curve;
}

void print_curves(const Graph &graph, const Graph *hnswlib, bool has_stretch, const Matrix &queries,
                  const std::vector<uint32_t> &truth)
{
    Curve by_stretch, them;
    pin(1);
    const Curve by_ef = print_by_ef(graph, hnswlib, them, queries, truth);
    if (has_stretch)
        by_stretch = print_by_stretch(graph, queries, truth);
    pin(-1);
    for (double recall : {0.90, 0.95, 0.98, 0.99, 0.995, 0.999}) {
        print_at("by ef", by_ef, them, recall);
        print_at("by stretch", by_stretch, them, recall);
    }
}

uint64_t counted;
hnswlib::DISTFUNC<float> uncounted_distance;

float counting_distance(const void *a, const void *b, const void *parameter)
{
    counted++;
    return uncounted_distance(a, b, parameter);
}

using Index = hnswlib::HierarchicalNSW<float>;

std::unique_ptr<Index> build_hnswlib(hnswlib::L2Space &space, const Matrix &base,
                                     const std::string &file)
{
    if (!file.empty() && std::ifstream(file).good())
        return std::make_unique<Index>(&space, file);
    auto index = std::make_unique<Index>(&space, base.rows, kM, kEfConstruction, 42);
    const Stopwatch watch;
    in_threads([&](uint32_t row) { index->addPoint(base.row_floats(row), row); }, base.rows);
    watch.print("hnswlib, f32");
    if (!file.empty())
        index->saveIndex(file);
    return index;
}

// Hops are not counted.
Graph graph_of(Index &index, const Matrix &queries)
{
    uncounted_distance = index.fstdistfunc_;
    Graph graph;
    graph.name = "hnswlib";
    graph.search = [&](uint32_t query, const Effort &effort, uint32_t *rows) {
        index.setEf(effort.ef);
        auto found = index.searchKnn(queries.row_floats(query), kHits);
        const size_t count = found.size();
        for (size_t i = 0; i < count; i++, found.pop())
            rows[i] = uint32_t(found.top().second);
        return count;
    };
    graph.count = [&](bool counts) {
        index.fstdistfunc_ = counts ? counting_distance : uncounted_distance;
    };
    graph.take_counts = [] { return Counts{std::exchange(counted, 0), 0}; };
    return graph;
}

Graph graph_of(graph_core *core, const char *name, const Matrix &queries,
               const std::vector<unsigned char> &hidden)
{
    const unsigned char *bytes = hidden.empty() ? nullptr : hidden.data();
    Graph graph;
    graph.name = name;
    graph.search = [=, &queries](uint32_t query, const Effort &effort, uint32_t *rows) {
        return graph_core_search(core, queries.row(query), effort.ef, kHits, effort.stretch, bytes,
                                 rows);
    };
    graph.count = [](bool) {};
    graph.take_counts = [=] {
        Counts counts;
        graph_core_counters(core, &counts.hops, &counts.distances);
        return counts;
    };
    return graph;
}

// The graph after 30 % of its rows were hidden, or dropped, and one of the others built anew.
void churn(graph_core *core, graph_core_way way, const Matrix &base, const Matrix &queries)
{
    std::vector<unsigned char> hidden(base.rows), keep(base.rows);
    std::vector<uint32_t> to_new(base.rows);
    std::vector<uint8_t> vectors;
    uint32_t kept = 0;
    for (uint32_t row = 0; row < base.rows; row++) {
        hidden[row] = (row * 2654435761u >> 8) % 10 < 3;
        keep[row] = !hidden[row];
        to_new[row] = kept;
        kept += keep[row];
        if (keep[row])
            vectors.insert(vectors.end(), base.row(row), base.row(row) + base.row_bytes());
    }
    const std::vector<uint32_t> truth = exact(base, queries, hidden);
    const Stopwatch adopting;
    graph_core *adopted = graph_core_adopt(core, keep.data(), kThreads);
    adopting.print("30 % dropped");
    (void)graph_core_check(adopted);
    const graph_core_settings settings = base.settings();
    const Stopwatch building;
    graph_core *fresh = graph_core_build(&settings, vectors.data(), kept, way, kThreads);
    building.print("fresh build");
    std::vector<uint32_t> new_truth = truth;
    for (uint32_t &row : new_truth)
        row = to_new[row];
    for (size_t ef : {20, 40, 80, 160, 320}) {
        const std::string effort = std::to_string(ef);
        const auto print = [&](graph_core *of, const char *name, const auto &right,
                               const std::vector<unsigned char> &without) {
            const Graph graph = graph_of(of, name, queries, without);
            print_row(effort.c_str(), name, measure(graph, queries, right, {ef, 0}));
        };
        print(core, "filtered", truth, hidden);
        print(adopted, "adopted", new_truth, {});
        print(fresh, "fresh", new_truth, {});
    }
    graph_core_destroy(adopted);
    graph_core_destroy(fresh);
}

void try_ours(const char *name, graph_core_way way, const Graph *hnswlib, bool churns,
              const Matrix &base, const Matrix &queries, const std::vector<uint32_t> &truth)
{
    const graph_core_settings settings = base.settings();
    const Stopwatch watch;
    graph_core *core = graph_core_build(&settings, base.row(0), base.rows, way, kThreads);
    watch.print(name);
    std::printf("%.1f links a row, %.0f MB, at most %.0f bytes a row beside the graph\n",
                graph_core_check(core), double(graph_core_bytes(core)) / 1e6,
                double(graph_core_extra_bytes(core)) / base.rows);
    print_curves(graph_of(core, name, queries, {}), hnswlib, true, queries, truth);
    if (churns)
        churn(core, way, base, queries);
    graph_core_destroy(core);
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 2) {
        std::fprintf(stderr, "usage: graph sift|floats [rows [ways [file [churn]]]]\n");
        return 2;
    }
    const bool is_sift = std::strcmp(argv[1], "sift") == 0;
    const uint32_t rows = argc > 2 ? uint32_t(std::atoi(argv[2])) : 1000000;
    const std::string ways = argc > 3 ? argv[3] : "hirb";
    const std::string file = argc > 4 && std::strcmp(argv[4], "-") != 0 ? argv[4] : "";
    const bool churns = argc > 5 && std::strcmp(argv[5], "churn") == 0;
    const char *given = std::getenv("OMENDB_DATA");
    const std::string folder = given ? given : "build/data";
    Matrix base =
        is_sift ? read_matrix(folder + "/sift-dev.base.u8bin", rows) : make_floats(rows + kQueries);
    const Matrix queries =
        is_sift ? read_matrix(folder + "/sift-dev.query.u8bin", kQueries) : split_queries(base);
    const std::vector<uint32_t> truth = exact(base, queries, {});
    hnswlib::L2Space space(base.dim);
    std::unique_ptr<Index> index;
    Graph hnswlib;
    if (ways.find('h') != std::string::npos) {
        index = build_hnswlib(space, base, file);
        hnswlib = graph_of(*index, queries);
    }
    const Graph *beside = index != nullptr ? &hnswlib : nullptr;
    if (ways == "h")
        print_curves(hnswlib, nullptr, false, queries, truth);
    for (const char way : ways) {
        if (way == 'i')
            try_ours("inserted", GRAPH_CORE_INSERT, beside, churns, base, queries, truth);
        if (way == 'r')
            try_ours("refined", GRAPH_CORE_REFINE, beside, churns, base, queries, truth);
        if (way == 'b')
            try_ours("bulk", GRAPH_CORE_BULK, beside, churns, base, queries, truth);
    }
    return 0;
}
