// bench_bulk.cpp: one-by-one and bulk building of the bare graph beside hnswlib's, on the same
// vectors in the same run: seconds with two threads, memory, and then for each graph the curve of
// recall@10 over distances computed and queries a second of one thread.
//
//   cc -std=c11 -O2 -I. -c bench/bulk_core.c -o build/bulk_core.o
//   c++ -std=c++17 -O3 -march=native -I. bench/bench_bulk.cpp build/bulk_core.o -o build/bulk
//   GLIBC_TUNABLES=glibc.malloc.hugetlb=1 build/bulk sift|floats rows [ways]
//
// sift: the folder OMENDB_DATA (build/data) holds sift-dev.base.u8bin and sift-dev.query.u8bin; our
// graph has them as u8, hnswlib as f32. floats: clusters of 384-d f32 with a falling spectrum, for
// both. ways: letters of h (hnswlib), i (insertion), r (insertion, then refining), b (bulk); all
// without it. hnswlib is compiled for this machine, the graph for any.
#include "bulk_core.h"

#include "omendb.h"

#include <hnswlib/hnswlib.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <time.h>

namespace
{

constexpr size_t kHits = 10;
constexpr uint32_t kM = 16, kEfConstruction = 200, kQueries = 2000;
constexpr unsigned kThreads = 2;

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
        std::printf("%-24s %8.1f s, %8.1f s of processor\n", what, now() - wall, cpu_time() - cpu);
        std::fflush(stdout);
    }
};

struct Matrix {
    uint32_t rows = 0, dim = 0;
    std::vector<uint8_t> bytes; // empty: only floats
    std::vector<float> floats;
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

std::vector<uint32_t> exact(const Matrix &base, const Matrix &queries)
{
    std::vector<uint32_t> truth(size_t(queries.rows) * kHits);
    const hnswlib::L2Space space(base.dim);
    auto &mutable_space = const_cast<hnswlib::L2Space &>(space);
    const auto distance_of = mutable_space.get_dist_func();
    in_threads(
        [&](uint32_t q) {
            std::vector<std::pair<float, uint32_t>> best;
            for (uint32_t row = 0; row < base.rows; row++) {
                const float distance = distance_of(&queries.floats[size_t(q) * base.dim],
                                                   &base.floats[size_t(row) * base.dim],
                                                   mutable_space.get_dist_func_param());
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

struct Graph {
    std::function<size_t(uint32_t query, size_t ef, uint32_t *rows)> search;
    std::function<double(uint64_t *hops)> take_distances; // since the last call
};

void print_curve(const Graph &graph, const Matrix &queries, const std::vector<uint32_t> &truth)
{
    double last_recall = 0, last_distances = 0;
    size_t mark = 0;
    const double marks[] = {0.90, 0.95, 0.98, 0.99, 0.995};
    std::string found;
    for (size_t ef : {10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 450, 640}) {
        uint32_t rows[kHits];
        uint64_t hops = 0;
        size_t hits = 0;
        (void)graph.take_distances(&hops);
        const double start = cpu_time();
        for (uint32_t q = 0; q < queries.rows; q++) {
            const size_t count = graph.search(q, ef, rows);
            const uint32_t *right = &truth[size_t(q) * kHits];
            for (size_t i = 0; i < count; i++)
                hits += std::find(right, right + kHits, rows[i]) != right + kHits;
        }
        const double rate = queries.rows / (cpu_time() - start);
        const double distances = graph.take_distances(&hops) / queries.rows;
        const double recall = double(hits) / double(queries.rows * kHits);
        std::printf("%5zu  %.4f  %7.0f distances  %6.1f hops  %8.0f q/s\n", ef, recall, distances,
                    double(hops) / queries.rows, rate);
        for (; mark < 5 && recall >= marks[mark]; mark++) {
            char text[64];
            const double part = (marks[mark] - last_recall) / (recall - last_recall);
            std::snprintf(text, sizeof text, "  %.3f: %.0f", marks[mark],
                          last_distances + part * (distances - last_distances));
            found += text;
        }
        last_recall = recall;
        last_distances = distances;
        if (recall > 0.997)
            break;
    }
    std::printf("distances at%s\n", found.c_str());
    std::fflush(stdout);
}

uint64_t counted;
hnswlib::DISTFUNC<float> uncounted_distance;

float counting_distance(const void *a, const void *b, const void *parameter)
{
    counted++;
    return uncounted_distance(a, b, parameter);
}

void try_hnswlib(const Matrix &base, const Matrix &queries, const std::vector<uint32_t> &truth)
{
    hnswlib::L2Space space(base.dim);
    hnswlib::HierarchicalNSW<float> index(&space, base.rows, kM, kEfConstruction, 42);
    const Stopwatch watch;
    in_threads([&](uint32_t row) { index.addPoint(&base.floats[size_t(row) * base.dim], row); },
               base.rows);
    watch.print("hnswlib, f32");
    uncounted_distance = index.fstdistfunc_;
    index.fstdistfunc_ = counting_distance;
    Graph graph;
    graph.search = [&](uint32_t q, size_t ef, uint32_t *rows) {
        index.setEf(ef);
        auto found = index.searchKnn(&queries.floats[size_t(q) * queries.dim], kHits);
        const size_t count = found.size();
        for (size_t i = 0; i < count; i++, found.pop())
            rows[i] = uint32_t(found.top().second);
        return count;
    };
    graph.take_distances = [](uint64_t *hops) {
        *hops = 0; // not counted
        const uint64_t distances = counted;
        counted = 0;
        return double(distances);
    };
    print_curve(graph, queries, truth);
}

void try_ours(const char *name, bulk_core_way way, const Matrix &base, const Matrix &queries,
              const std::vector<uint32_t> &truth)
{
    const bool bytes = !base.bytes.empty();
    const size_t size = bytes ? base.dim : base.dim * sizeof(float);
    const bulk_core_settings settings = {kM,        kEfConstruction, bytes ? OMENDB_U8 : OMENDB_F32,
                                         OMENDB_L2, base.dim,        size};
    const void *vectors = bytes ? static_cast<const void *>(base.bytes.data()) : base.floats.data();
    bulk_core *core = bulk_core_create(&settings, vectors, base.rows);
    const Stopwatch watch;
    bulk_core_build(core, way, kThreads);
    watch.print(name);
    const double extra = double(bulk_core_extra_bytes(core)) / base.rows;
    std::printf("%.1f links a row, at most %.0f bytes a row beside the graph\n",
                bulk_core_check(core), extra);
    Graph graph;
    graph.search = [&](uint32_t q, size_t ef, uint32_t *rows) {
        const void *query = bytes ? static_cast<const void *>(&queries.bytes[q * size])
                                  : &queries.floats[size_t(q) * queries.dim];
        return bulk_core_search(core, query, ef, kHits, rows);
    };
    graph.take_distances = [&](uint64_t *hops) {
        uint64_t distances;
        bulk_core_counters(core, hops, &distances);
        return double(distances);
    };
    print_curve(graph, queries, truth);
    bulk_core_destroy(core);
}

} // namespace

int main(int argc, char **argv)
{
    if (argc < 3) {
        std::fprintf(stderr, "usage: bulk sift|floats rows [ways]\n");
        return 2;
    }
    const std::string set = argv[1], ways = argc > 3 ? argv[3] : "hirb";
    const uint32_t rows = uint32_t(std::atoi(argv[2]));
    const char *given = std::getenv("OMENDB_DATA");
    const std::string folder = given ? given : "build/data";
    Matrix base = set == "sift" ? read_matrix(folder + "/sift-dev.base.u8bin", rows)
                                : make_floats(rows + kQueries);
    const Matrix queries = set == "sift" ? read_matrix(folder + "/sift-dev.query.u8bin", kQueries)
                                         : split_queries(base);
    const std::vector<uint32_t> truth = exact(base, queries);
    for (const char way : ways) {
        if (way == 'h')
            try_hnswlib(base, queries, truth);
        if (way == 'i')
            try_ours("inserted", BULK_CORE_INSERT, base, queries, truth);
        if (way == 'r')
            try_ours("inserted and refined", BULK_CORE_REFINE, base, queries, truth);
        if (way == 'b')
            try_ours("bulk", BULK_CORE_BULK, base, queries, truth);
    }
    return 0;
}
