// bench_search.cpp: recall@10 against queries a second, one thread, OmenDB beside hnswlib and
// FAISS in one run on one data set.
//
// OmenDB is measured as a user has it: a database on disk, optimised, closed and opened again; by
// its adaptive stop (query.stretch), and by ef as "OmenDB-ef". The
// peers' indexes lie in memory. Indexes that bench_build left are used; missing ones are built.
// Rounds alternate between the libraries, so that a slow spell of the machine meets all of them,
// and the best of the rounds counts. Rates are by the CPU time of the searching thread, which on an
// idle machine is the time of the clock and on a shared one leaves out what others took; latencies
// are by the clock. Throughput is interpolated between the two points around each
// recall, in the logarithm of the rate; a library whose curve does not reach a recall has none.
//
// bench_search --serve NAME measures one library for bench/peers.py, which sets it beside the
// packages of PyPI: it answers each line "ef" with "recall queries_per_second p50_us p99_us
// single".

#include "bench.h"
#include "peers.h"

#include <algorithm>
#include <cmath>

using namespace bench;

namespace
{

constexpr int kRounds = 3;
constexpr size_t kStretch = 1000; // an effort of 1000 and more stands for a stretch of 1 and more
constexpr double kTargets[] = {0.90, 0.95, 0.99, 0.999};

struct Point {
    size_t ef;
    double recall = 0;
    double rate = 0; // queries a second
    double p50_us = 0;
    double p99_us = 0;
    double distances = 0; // that a query computes, where the library tells; 0 where not
    double p99_distances = 0;
};

struct Curve {
    std::string name;
    std::vector<Point> points;
};

class OmenDb : public Peer
{
  public:
    OmenDb(const std::string &path, size_t dim)
    {
        database_.options.must_exist = 1;
        dim_ = dim;
        check(omendb_open(path.c_str(), &database_.options, &database_.db), "omendb_open");
        check(omendb_collection_open(database_.db, collection_name().c_str(), nullptr,
                                     &database_.collection),
              "omendb_collection_open");
    }

    ~OmenDb() override
    {
        database_.close();
    }

    const char *name() const override
    {
        return "OmenDB";
    }

    void build(const Dataset &) override
    {
    }

    void save(const std::string &) override
    {
    }

    void load(const std::string &) override
    {
    }

    // From kStretch on: the stretch of the adaptive stop, times kStretch.
    void set_ef(size_t ef) override
    {
        query_.ef = ef < kStretch ? (uint32_t)ef : 0;
        query_.stretch = ef < kStretch ? 0.0f : (float)ef / (float)kStretch;
        query_.k = kHits;
    }

    double distances(const float *query) override
    {
        omendb_explain explain = OMENDB_EXPLAIN_INIT;
        uint64_t ids[kHits];
        query_.explain = &explain;
        search(query, ids);
        query_.explain = nullptr;
        return (double)explain.distances;
    }

    void search(const float *query, uint64_t *ids) override
    {
        size_t count;
        query_.vector = query;
        check(omendb_search(database_.collection, nullptr, &query_, ids, distances_, &count),
              "omendb_search");
    }

    void search_all(const float *queries, size_t count, uint64_t *ids) override
    {
        for (size_t q = 0; q < count; q++)
            search(queries + q * dim_, ids + q * kHits);
    }

  private:
    Database database_;
    size_t dim_;
    omendb_query query_ = OMENDB_QUERY_INIT;
    float distances_[kHits];
};

std::unique_ptr<Peer> open_library(const std::string &name, const Dataset &data)
{
    std::string path = index_path(name);
    if (name == "OmenDB") {
        if (!exists(path))
            build_omendb(path, data);
        return std::make_unique<OmenDb>(path, data.dim);
    }
    std::unique_ptr<Peer> peer = make_peer(name, data.dim);
    if (exists(path)) {
        peer->load(path);
    } else {
        peer->build(data);
        peer->save(path);
    }
    return peer;
}

Curve curve_of(const std::string &name, const std::vector<size_t> &efforts)
{
    Curve curve{name, {}};
    for (size_t effort : efforts)
        curve.points.push_back(Point{effort});
    return curve;
}

// One round at one ef; keeps the better of it and what was there.
void measure(Peer &library, const Dataset &data, Point &point)
{
    std::vector<uint64_t> found(data.query_count * kHits);
    std::vector<double> times(data.query_count);
    library.set_ef(point.ef);
    double begun = thread_cpu_seconds();
    library.search_all(data.queries.data(), data.query_count, found.data());
    double rate = (double)data.query_count / (thread_cpu_seconds() - begun);
    point.recall = recall(data.truth.data(), found.data(), data.query_count);
    if (rate <= point.rate)
        return;
    point.rate = rate;
    for (size_t q = 0; q < data.query_count; q++) {
        double before = seconds_now();
        library.search(&data.queries[q * data.dim], &found[0]);
        times[q] = (seconds_now() - before) * 1e6;
    }
    point.p50_us = percentile(times, 0.50);
    point.p99_us = percentile(times, 0.99);
    if (point.distances != 0)
        return;
    for (size_t q = 0; q < data.query_count; q++) {
        times[q] = library.distances(&data.queries[q * data.dim]);
        point.distances += times[q] / (double)data.query_count;
    }
    point.p99_distances = percentile(times, 0.99);
}

// A value of two neighbouring points at `target`, by weight of their recall; 0 outside the curve.
Point at_recall(const Curve &curve, double target)
{
    Point result{0};
    for (size_t i = 1; i < curve.points.size(); i++) {
        const Point &low = curve.points[i - 1], &high = curve.points[i];
        if (low.recall > target || high.recall < target || high.recall <= low.recall)
            continue;
        double part = (target - low.recall) / (high.recall - low.recall);
        auto between = [part](double a, double b) {
            return a > 0 ? std::exp(std::log(a) * (1 - part) + std::log(b) * part) : 0;
        };
        result.recall = target;
        result.rate = between(low.rate, high.rate);
        result.p50_us = between(low.p50_us, high.p50_us);
        result.p99_us = between(low.p99_us, high.p99_us);
        result.distances = between(low.distances, high.distances);
        result.p99_distances = between(low.p99_distances, high.p99_distances);
        result.ef = (size_t)between((double)low.ef, (double)high.ef);
        break;
    }
    return result;
}

// The columns are those of peers.py; what building took is in build.csv.
void print_curves(const Dataset &data, const std::vector<Curve> &curves)
{
    std::string set = collection_name();
    Csv csv("search.csv", "dataset,rows,library,parameters,ef,recall,qps,p50_us,p99_us,build_s,"
                          "peak_mb,build_cpu_s,resident_mb,call,distances,p99_distances");
    printf("\n%-10s %6s %8s %12s %9s %9s %10s %10s\n", "library", "ef", "recall", "queries/s",
           "p50 us", "p99 us", "distances", "99 of 100");
    for (const Curve &curve : curves)
        for (const Point &point : curve.points) {
            printf("%-10s %6zu %8.4f %12.0f %9.1f %9.1f %10.0f %10.0f\n", curve.name.c_str(),
                   point.ef, point.recall, point.rate, point.p50_us, point.p99_us, point.distances,
                   point.p99_distances);
            csv.line(
                "%s,%zu,%s,M=%d ef_construction=%d,%zu,%.5f,%.1f,%.1f,%.1f,,,,,single,%.1f,%.1f",
                set.c_str(), data.rows, curve.name.c_str(), kM, kEfConstruction, point.ef,
                point.recall, point.rate, point.p50_us, point.p99_us, point.distances,
                point.p99_distances);
        }
}

void print_targets(const std::vector<Curve> &curves)
{
    Csv csv("search_targets.csv", "library,recall,queries_per_second,p50_us,p99_us,x_hnswlib,"
                                  "distances,p99_distances");
    printf("\n%-10s %8s %12s %9s %9s %10s %10s %10s\n", "library", "recall", "queries/s", "p50 us",
           "p99 us", "x hnswlib", "distances", "99 of 100");
    for (double target : kTargets) {
        double base = 0;
        for (const Curve &curve : curves)
            if (curve.name == "hnswlib")
                base = at_recall(curve, target).rate;
        for (const Curve &curve : curves) {
            Point point = at_recall(curve, target);
            double ratio = base > 0 ? point.rate / base : 0;
            printf("%-10s %8.3f %12.0f %9.1f %9.1f %10.2f %10.0f %10.0f\n", curve.name.c_str(),
                   target, point.rate, point.p50_us, point.p99_us, ratio, point.distances,
                   point.p99_distances);
            csv.line("%s,%.3f,%.1f,%.1f,%.1f,%.3f,%.1f,%.1f", curve.name.c_str(), target,
                     point.rate, point.p50_us, point.p99_us, ratio, point.distances,
                     point.p99_distances);
        }
    }
}

// Answers standard input until it ends; the first line says what is resident beside the data set.
int serve(const std::string &name)
{
    Dataset data = load_dataset(true);
    uint64_t before = process_memory().resident_bytes;
    pin_to_core((int)setting("OMENDB_BENCH_CORE", 0));
    std::unique_ptr<Peer> library = open_library(name, data);
    Point warm{kHits};
    measure(*library, data, warm);
    printf("ready %zu\n", (size_t)(process_memory().resident_bytes - before));
    fflush(stdout);
    for (size_t ef; scanf("%zu", &ef) == 1;) {
        Point point{ef};
        measure(*library, data, point);
        printf("%.5f %.1f %.1f %.1f single\n", point.recall, point.rate, point.p50_us,
               point.p99_us);
        fflush(stdout);
    }
    return 0;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc == 3 && std::string(argv[1]) == "--serve")
        return serve(argv[2]);
    Dataset data = load_dataset(true);
    std::vector<std::shared_ptr<Peer>> libraries;
    std::vector<Curve> curves;
    std::vector<std::string> names = peer_names();
    const std::vector<size_t> efs = {10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448};
    names.insert(names.begin(), "OmenDB");
    for (const std::string &name : names) {
        libraries.push_back(open_library(name, data));
        curves.push_back(curve_of(name, efs));
    }
    // OmenDB once more, by its adaptive stop.
    libraries.insert(libraries.begin(), libraries[0]);
    curves[0].name = "OmenDB-ef";
    curves.insert(curves.begin(), curve_of("OmenDB", {1010, 1030, 1050, 1070, 1090, 1120, 1160,
                                                      1200, 1240, 1300, 1360, 1450}));
    printf("%s, %zu x %zu, %zu queries, recall@%zu, one thread, best of %d\n%s\n",
           data.name.c_str(), data.rows, data.dim, data.query_count, kHits, kRounds,
           machine().c_str());
    pin_to_core(0);
    size_t steps = curves[0].points.size(), done = 0;
    Progress progress("search", (size_t)kRounds * steps * libraries.size());
    for (int round = 0; round < kRounds; round++)
        for (size_t step = 0; step < steps; step++)
            for (size_t i = 0; i < libraries.size(); i++) {
                measure(*libraries[i], data, curves[i].points[step]);
                progress.update(++done);
            }
    print_curves(data, curves);
    print_targets(curves);
    return 0;
}
