// bench_commit.cpp: durable commits, OmenDB beside SQLite (WAL mode, synchronous=FULL, a blob a
// row).
//
// Both acknowledge nothing before fdatasync, and both make checkpoints while they are measured:
// SQLite at its default of 1,000 pages, OmenDB at the same 4 MiB of log where commits are of one
// record, and at its default of 64 MiB where they are of 1,000. With several threads SQLite runs
// twice, with a connection a thread that waits by busy_timeout, and with one connection behind a
// mutex; the ratio is to the better one. They take turns of a quarter of a second, since a disk is
// never alone.
//
// SQLite keeps blobs and no graph. "omendb" has no background threads and builds none either;
// "omendb+graph" builds it meanwhile on all cores, with the tail's bound raised so that no writer
// waits for it, and runs after the others.
//
// The calls of fdatasync and fsync are counted where the program calls them, for both alike.
//
//   OMENDB_BENCH_COMMIT_SECONDS   for each program and row of the table (default 10)
//   OMENDB_BENCH_COMMIT_ONLY      "single" or "batch": only these

#include "bench.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if __has_include(<sqlite3.h>)
#include <sqlite3.h>
#define BENCH_SQLITE 1
#else
#define BENCH_SQLITE 0
#endif

using namespace bench;

namespace
{

std::atomic<uint64_t> sync_calls{0};

int counted(long result)
{
    sync_calls++;
    return (int)result;
}

} // namespace

// In place of the C library's, for every library of this program.
extern "C" int fdatasync(int descriptor)
{
    return counted(syscall(SYS_fdatasync, descriptor));
}

extern "C" int fsync(int descriptor)
{
    return counted(syscall(SYS_fsync, descriptor));
}

namespace
{

constexpr size_t kSamples = 4096; // different vectors; what they hold does not matter
constexpr double kTurnSeconds = 0.25;

struct Mode {
    size_t dim;
    size_t batch;
    int threads;
};

std::vector<float> samples(size_t dim)
{
    std::mt19937 random(1);
    std::normal_distribution<float> element(0, 1);
    std::vector<float> vectors(kSamples * dim);
    for (float &value : vectors)
        value = element(random);
    return vectors;
}

// A store to commit to; `thread` says who calls.
class Store
{
  public:
    virtual ~Store() = default;
    virtual void commit(int thread, uint64_t first_id, const float *vectors) = 0;
    virtual uint64_t checkpoints()
    {
        return 0;
    }
};

class Omendb : public Store
{
  public:
    Omendb(const Mode &mode, bool graph) : mode_(mode)
    {
        remove_tree(path_);
        database_.options.threads = graph ? OMENDB_THREADS_AUTO : 0;
        database_.options.tail_limit = UINT64_C(1) << 40;
        database_.options.stall_timeout_ms = 3600000;
        database_.options.wal_limit = mode.batch == 1 ? UINT64_C(4) << 20 : 0;
        database_.open(path_, mode.dim, OMENDB_L2);
    }

    ~Omendb() override
    {
        database_.close();
        remove_tree(path_);
    }

    void commit(int, uint64_t first_id, const float *vectors) override
    {
        if (mode_.batch == 1) {
            omendb_record record = OMENDB_RECORD_INIT;
            record.id = first_id;
            record.vector = vectors;
            check(omendb_add(database_.collection, nullptr, &record, nullptr), "omendb_add");
            return;
        }
        std::vector<uint64_t> ids(mode_.batch);
        for (size_t i = 0; i < ids.size(); i++)
            ids[i] = first_id + i;
        check(omendb_add_batch(database_.collection, nullptr, ids.size(), ids.data(), vectors,
                               OMENDB_F32, nullptr),
              "omendb_add_batch");
    }

    uint64_t checkpoints() override
    {
        return database_.stats().checkpoints;
    }

  private:
    Mode mode_;
    Database database_;
    std::string path_ = directory() + "/commit.omen";
};

#if BENCH_SQLITE
void check_sqlite(int code, sqlite3 *db, const char *what)
{
    if (code == SQLITE_OK || code == SQLITE_DONE)
        return;
    fprintf(stderr, "%s: %s\n", what, sqlite3_errmsg(db));
    exit(1);
}

struct Connection {
    sqlite3 *db = nullptr;
    sqlite3_stmt *begin = nullptr, *insert = nullptr, *commit = nullptr;

    void open(const std::string &path)
    {
        check_sqlite(sqlite3_open(path.c_str(), &db), db, "sqlite3_open");
        sqlite3_busy_timeout(db, 60000);
        run("PRAGMA journal_mode=WAL");
        run("PRAGMA synchronous=FULL");
        run("CREATE TABLE IF NOT EXISTS rows(id INTEGER PRIMARY KEY, vector BLOB NOT NULL)");
        begin = prepare("BEGIN IMMEDIATE");
        insert = prepare("INSERT INTO rows VALUES(?, ?)");
        commit = prepare("COMMIT");
    }

    void close()
    {
        for (sqlite3_stmt *statement : {begin, insert, commit})
            sqlite3_finalize(statement);
        check_sqlite(sqlite3_close(db), db, "sqlite3_close");
    }

    void add(uint64_t first_id, size_t count, const float *vectors, size_t dim)
    {
        if (count > 1)
            step(begin);
        for (size_t i = 0; i < count; i++) {
            sqlite3_bind_int64(insert, 1, (sqlite3_int64)(first_id + i));
            sqlite3_bind_blob(insert, 2, vectors + i * dim, (int)(dim * sizeof(float)),
                              SQLITE_STATIC);
            step(insert);
        }
        if (count > 1)
            step(commit);
    }

  private:
    void run(const char *text)
    {
        check_sqlite(sqlite3_exec(db, text, nullptr, nullptr, nullptr), db, text);
    }

    sqlite3_stmt *prepare(const char *text)
    {
        sqlite3_stmt *statement = nullptr;
        check_sqlite(sqlite3_prepare_v2(db, text, -1, &statement, nullptr), db, text);
        return statement;
    }

    void step(sqlite3_stmt *statement)
    {
        check_sqlite(sqlite3_step(statement), db, "sqlite3_step");
        sqlite3_reset(statement);
    }
};

class Sqlite : public Store
{
  public:
    Sqlite(const Mode &mode, bool shared) : mode_(mode), shared_(shared)
    {
        remove_tree(path_);
        make_directory(path_);
        connections_.resize(shared ? 1 : (size_t)mode.threads);
        for (Connection &connection : connections_)
            connection.open(path_ + "/rows.db");
    }

    ~Sqlite() override
    {
        for (Connection &connection : connections_)
            connection.close();
        remove_tree(path_);
    }

    void commit(int thread, uint64_t first_id, const float *vectors) override
    {
        std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
        if (shared_)
            lock.lock();
        connections_[shared_ ? 0 : (size_t)thread].add(first_id, mode_.batch, vectors, mode_.dim);
    }

  private:
    static void make_directory(const std::string &path)
    {
        if (mkdir(path.c_str(), 0700) != 0) {
            perror(path.c_str());
            exit(1);
        }
    }

    Mode mode_;
    bool shared_;
    std::string path_ = directory() + "/commit.sqlite";
    std::vector<Connection> connections_;
    std::mutex mutex_;
};
#endif

struct Engine {
    const char *name;
    bool several; // only of use with several threads
    bool alone;   // its threads work between its turns, too
    std::unique_ptr<Store> (*make)(const Mode &mode);
};

const Engine kEngines[] = {
#if BENCH_SQLITE
    {"sqlite", false, false,
     [](const Mode &mode) -> std::unique_ptr<Store> {
         return std::make_unique<Sqlite>(mode, false);
     }},
    {"sqlite+mutex", true, false,
     [](const Mode &mode) -> std::unique_ptr<Store> {
         return std::make_unique<Sqlite>(mode, true);
     }},
#endif
    {"omendb", false, false,
     [](const Mode &mode) -> std::unique_ptr<Store> {
         return std::make_unique<Omendb>(mode, false);
     }},
    {"omendb+graph", false, true,
     [](const Mode &mode) -> std::unique_ptr<Store> {
         return std::make_unique<Omendb>(mode, true);
     }},
};

// One engine over all of its turns.
struct Run {
    const Engine *engine = nullptr;
    std::unique_ptr<Store> store;
    double seconds = 0, cpu_seconds = 0;
    uint64_t commits = 0, syncs = 0, checkpoints = 0;
    std::atomic<uint64_t> next{1};
    std::vector<double> latency_us;

    double rate() const
    {
        return (double)commits / seconds;
    }
};

void take_turn(Run &run, const Mode &mode, const std::vector<float> &vectors)
{
    std::vector<std::vector<double>> latency((size_t)mode.threads);
    double begun = seconds_now(), cpu = process_cpu_seconds(), until = begun + kTurnSeconds;
    uint64_t syncs = sync_calls;
    run_threads(mode.threads, [&](int thread) {
        for (double before = seconds_now(), after; before < until; before = after) {
            uint64_t id = run.next.fetch_add(mode.batch);
            size_t sample = id % (kSamples - mode.batch + 1);
            run.store->commit(thread, id, &vectors[sample * mode.dim]);
            after = seconds_now();
            latency[(size_t)thread].push_back((after - before) * 1e6);
        }
    });
    run.seconds += seconds_now() - begun;
    run.cpu_seconds += process_cpu_seconds() - cpu;
    run.syncs += sync_calls - syncs;
    for (const std::vector<double> &of_thread : latency)
        run.latency_us.insert(run.latency_us.end(), of_thread.begin(), of_thread.end());
    run.commits = run.latency_us.size();
}

void report(const Mode &mode, const Run &run, double sqlite, Csv &csv)
{
    double commits = (double)run.commits, p50 = percentile(run.latency_us, 0.5),
           p99 = percentile(run.latency_us, 0.99), syncs = (double)run.syncs / commits,
           cpu_us = run.cpu_seconds / commits * 1e6, rows = run.rate() * (double)mode.batch,
           ratio = sqlite > 0 ? run.rate() / sqlite : 0;
    printf("%4zu %6zu %7d %-13s %9.0f %9.0f %9.0f %9.0f %7.2f %9.0f %6zu %6.2f\n", mode.dim,
           mode.batch, mode.threads, run.engine->name, run.rate(), rows, p50, p99, syncs, cpu_us,
           (size_t)run.checkpoints, ratio);
    csv.line("%zu,%zu,%d,%s,%.1f,%.1f,%.1f,%.1f,%.3f,%.1f,%zu,%.3f", mode.dim, mode.batch,
             mode.threads, run.engine->name, run.rate(), rows, p50, p99, syncs, cpu_us,
             (size_t)run.checkpoints, ratio);
}

void run_turns(std::vector<std::unique_ptr<Run>> &runs, bool alone, const Mode &mode,
               const std::vector<float> &vectors)
{
    size_t turns = (size_t)((double)setting("OMENDB_BENCH_COMMIT_SECONDS", 10) / kTurnSeconds);
    for (auto &run : runs)
        if (run->engine->alone == alone)
            run->store = run->engine->make(mode);
    for (size_t turn = 0; turn < turns; turn++)
        for (auto &run : runs)
            if (run->engine->alone == alone)
                take_turn(*run, mode, vectors);
    for (auto &run : runs)
        if (run->engine->alone == alone) {
            run->checkpoints = run->store->checkpoints();
            run->store.reset();
        }
}

void run_mode(const Mode &mode, Csv &csv)
{
    std::vector<std::unique_ptr<Run>> runs;
    std::vector<float> vectors = samples(mode.dim);
    double sqlite = 0;
    const char *peers = getenv("OMENDB_BENCH_PEERS");
    bool alone = peers && strcmp(peers, "none") == 0;
    for (const Engine &engine : kEngines)
        if ((!engine.several || mode.threads > 1) &&
            !(alone && strncmp(engine.name, "sqlite", 6) == 0)) {
            runs.push_back(std::make_unique<Run>());
            runs.back()->engine = &engine;
        }
    run_turns(runs, false, mode, vectors);
    run_turns(runs, true, mode, vectors);
    for (const auto &run : runs)
        if (strncmp(run->engine->name, "sqlite", 6) == 0)
            sqlite = std::max(sqlite, run->rate());
    for (const auto &run : runs)
        report(mode, *run, sqlite, csv);
    printf("\n");
    fflush(stdout);
}

} // namespace

int main()
{
    const char *only = getenv("OMENDB_BENCH_COMMIT_ONLY");
    Csv csv("commit.csv", "dim,batch,threads,engine,commits_per_second,rows_per_second,p50_us,"
                          "p99_us,syncs_per_commit,cpu_us_per_commit,checkpoints,to_sqlite");
    printf("durable commits of f32 vectors, file system %s\n%s\n\n",
           file_system(directory()).c_str(), machine().c_str());
    if (!BENCH_SQLITE)
        printf("SQLite (libsqlite3-dev) is not here and is left out\n\n");
    printf("%4s %6s %7s %-13s %9s %9s %9s %9s %7s %9s %6s %6s\n", "dim", "batch", "threads", "",
           "commits/s", "rows/s", "p50 us", "p99 us", "syncs", "cpu us", "chkpts", "ratio");
    for (size_t batch : {(size_t)1, (size_t)1000})
        for (int threads : {1, 4})
            for (size_t dim : {(size_t)128, (size_t)768})
                if (!only || (*only == 's') == (batch == 1))
                    run_mode({dim, batch, threads}, csv);
    return 0;
}
