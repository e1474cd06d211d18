// bench_ids.cpp: records found by id, and read in the order of ids, beside a B-tree
// (absl::btree_map from id to row), std::lower_bound over the sorted ids, and SQLite's rowid.
//
// Ids are made in four ways. Sequential: 0, 1, 2, ... in the order of adding; the others are added
// in any order. Random: of 63 bits. Clustered: runs of 1 to 10,000 ids, 1 to 3 apart, at random
// places. Adversarial: runs of 18 ids, every other of them consecutive and the next 2^10 to 2^29
// apart, so that no line goes far. Found are ids drawn at random from all, in a random order;
// missed are ids beside those that are there (of sequential ones: above them).
//
// "model" is the bare model over an array in memory, without the rest of a database; "get" is
// omendb_get, "batch" omendb_get_batch of 1,000 ids, both without vectors; "+v" with vectors of 16
// bytes. OmenDB lies in a file, as one segment; the B-tree and SQLite (":memory:") are in memory,
// on huge pages where there are some. Scans read everything once, ids alone or with vectors.
//
// The time is that of the thread, by its CPU clock, on core 0: what others take from the core is
// left out. Each is the best of several rounds, in which all take turns. In millions a second.
//
//   OMENDB_BENCH_IDS_ROWS     the larger of the two sizes (default 10,000,000)
//   OMENDB_BENCH_IDS_SMALL    the smaller one, in cache (default 100,000; 0: none)
//   OMENDB_BENCH_IDS_ROUNDS   (default 5)
//
// Arguments: the kinds of ids to take instead of all.

#include "bench.h"
#include "ids_core.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>

#if __has_include(<absl/container/btree_map.h>)
#include <absl/container/btree_map.h>
#define HAS_BTREE 1
#else
#define HAS_BTREE 0
#endif
#if __has_include(<sqlite3.h>)
#include <sqlite3.h>
#define HAS_SQLITE 1
#else
#define HAS_SQLITE 0
#endif

using namespace bench;

namespace
{

constexpr size_t kDim = 4;
constexpr size_t kQueries = 1000000;
constexpr size_t kBatch = 1000;

using Ids = std::vector<uint64_t>;

Ids make_ids(const std::string &kind, size_t count)
{
    std::mt19937_64 random(7);
    Ids ids;
    uint64_t next = 0;
    while (ids.size() < count) {
        if (kind == "sequential") {
            ids.push_back(ids.size());
        } else if (kind == "random") {
            ids.push_back(random() >> 1);
        } else if (kind == "clustered") {
            uint64_t at = random() >> 2, run = 1 + random() % 10000;
            for (uint64_t i = 0; i < run && ids.size() < count; i++)
                ids.push_back(at += 1 + random() % 3);
        } else {
            uint64_t run = ids.size() / 18;
            next += run % 2 == 1 ? 1 : UINT64_C(1) << (10 + random() % 20);
            ids.push_back(next);
        }
    }
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
}

Ids choose(const Ids &ids, bool there)
{
    std::mt19937_64 random(11);
    Ids chosen(kQueries);
    for (uint64_t &id : chosen) {
        size_t at = random() % ids.size();
        id = ids[at];
        if (!there && ids.back() == ids.size() - 1)
            id += ids.size();
        while (!there && at < ids.size() && ids[at] == id)
            id++, at++;
    }
    return chosen;
}

void fill(omendb_collection *collection, const Ids &ids)
{
    std::vector<float> vectors(100000 * kDim);
    for (size_t i = 0; i < vectors.size(); i++)
        vectors[i] = (float)(i % 1009);
    for (size_t first = 0; first < ids.size(); first += 100000)
        check(omendb_add_batch(collection, nullptr, std::min<size_t>(100000, ids.size() - first),
                               ids.data() + first, vectors.data(), OMENDB_F32, nullptr),
              "omendb_add_batch");
}

// One segment, without a graph.
void open_omendb(Database &database, const std::string &path, Ids ids, bool shuffled)
{
    remove_tree(path);
    if (shuffled)
        std::shuffle(ids.begin(), ids.end(), std::mt19937_64(3));
    database.options.threads = 0;
    database.options.sync = OMENDB_SYNC_OFF;
    database.options.wal_limit = UINT64_C(16) << 30;
    database.options.tail_limit = UINT64_C(16) << 30;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = kDim;
    schema.M = 2;
    schema.ef_construction = 8;
    check(omendb_open(path.c_str(), &database.options, &database.db), "omendb_open");
    check(omendb_collection_create(database.db, "ids", &schema, &database.collection),
          "omendb_collection_create");
    fill(database.collection, ids);
    database.close();
    check(omendb_open(path.c_str(), &database.options, &database.db), "omendb_open");
    check(omendb_collection_open(database.db, "ids", nullptr, &database.collection),
          "omendb_collection_open");
}

#if HAS_SQLITE
struct Sqlite {
    sqlite3 *db = nullptr;
    sqlite3_stmt *find = nullptr, *scan = nullptr;
    void require(bool good) const
    {
        if (good)
            return;
        fprintf(stderr, "SQLite: %s\n", sqlite3_errmsg(db));
        exit(1);
    }
    explicit Sqlite(const Ids &ids)
    {
        char blob[kDim * sizeof(float)] = {0};
        sqlite3_stmt *insert;
        require(sqlite3_open(":memory:", &db) == SQLITE_OK);
        require(sqlite3_exec(db, "create table t(id integer primary key, v blob); begin", nullptr,
                             nullptr, nullptr) == SQLITE_OK);
        require(sqlite3_prepare_v2(db, "insert into t values(?, ?)", -1, &insert, nullptr) ==
                SQLITE_OK);
        for (uint64_t id : ids) {
            sqlite3_bind_int64(insert, 1, (sqlite3_int64)id);
            sqlite3_bind_blob(insert, 2, blob, sizeof blob, SQLITE_STATIC);
            require(sqlite3_step(insert) == SQLITE_DONE);
            sqlite3_reset(insert);
        }
        sqlite3_finalize(insert);
        require(sqlite3_exec(db, "commit", nullptr, nullptr, nullptr) == SQLITE_OK);
        require(sqlite3_prepare_v2(db, "select 1 from t where id = ?", -1, &find, nullptr) ==
                SQLITE_OK);
        require(sqlite3_prepare_v2(db, "select id from t where id between 0 and ? order by id", -1,
                                   &scan, nullptr) == SQLITE_OK);
    }
    ~Sqlite()
    {
        sqlite3_finalize(find);
        sqlite3_finalize(scan);
        sqlite3_close(db);
    }
    uint64_t count(const Ids &wanted, size_t most) const
    {
        uint64_t found = 0;
        for (size_t i = 0; i < most; i++) {
            sqlite3_bind_int64(find, 1, (sqlite3_int64)wanted[i]);
            found += sqlite3_step(find) == SQLITE_ROW;
            sqlite3_reset(find);
        }
        return found;
    }
    uint64_t count_all() const
    {
        uint64_t found = 0;
        sqlite3_bind_int64(scan, 1, INT64_MAX);
        while (sqlite3_step(scan) == SQLITE_ROW)
            found += sqlite3_column_int64(scan, 0) >= 0;
        sqlite3_reset(scan);
        return found;
    }
};
#endif

uint64_t get_each(const Database &database, const Ids &wanted, float *vectors)
{
    uint64_t found = 0;
    for (uint64_t id : wanted)
        found += omendb_get(database.collection, nullptr, id, OMENDB_F32, vectors) == OMENDB_OK;
    return found;
}

uint64_t get_batches(const Database &database, const Ids &wanted, float *vectors)
{
    uint8_t there[kBatch];
    uint64_t found = 0;
    for (size_t first = 0; first < wanted.size(); first += kBatch) {
        check(omendb_get_batch(database.collection, nullptr, kBatch, wanted.data() + first,
                               OMENDB_F32, vectors, there),
              "omendb_get_batch");
        for (uint8_t is : there)
            found += is;
    }
    return found;
}

uint64_t scan_all(const Database &database, float *vector)
{
    omendb_rows *rows = nullptr;
    uint64_t id, found = 0;
    check(omendb_scan(database.collection, nullptr, 0, UINT64_MAX - 1, &rows), "omendb_scan");
    while (omendb_rows_next(rows, &id, OMENDB_F32, vector) == OMENDB_OK)
        found++;
    omendb_rows_close(rows);
    return found;
}

// One way of asking: how many it did, and its best time.
struct Way {
    const char *name;
    std::function<uint64_t()> work;
    uint64_t expected; // what it must find; UINT64_MAX: any
    double done;
    double best = 0; // millions a second
};

void run(std::vector<Way> &ways)
{
    for (size_t round = 0; round < setting("OMENDB_BENCH_IDS_ROUNDS", 5); round++) {
        for (Way &way : ways) {
            double begun = thread_cpu_seconds();
            uint64_t found = way.work();
            double rate = way.done / (thread_cpu_seconds() - begun) / 1e6;
            if (way.expected != UINT64_MAX && found != way.expected) {
                fprintf(stderr, "%s found %zu of %zu\n", way.name, (size_t)found,
                        (size_t)way.expected);
                exit(1);
            }
            way.best = std::max(way.best, rate);
        }
    }
}

double rate(const std::vector<Way> &ways, const char *name)
{
    for (const Way &way : ways) {
        if (strcmp(way.name, name) == 0)
            return way.best;
    }
    return 0;
}

void print_rates(const std::string &kind, size_t rows, const char *what,
                 const std::vector<Way> &ways, Csv &csv)
{
    printf("%-11s %9zu %-7s", kind.c_str(), rows, what);
    for (const Way &way : ways) {
        printf(" %s %.2f", way.name, way.best);
        csv.line("%s,%zu,%s,%s,%.3f", kind.c_str(), rows, what, way.name, way.best);
    }
    printf("\n");
    for (const char *other : {"btree", "lower_bound", "sqlite"}) {
        if (rate(ways, other) == 0)
            continue;
        printf("%29s to %s:", "", other);
        for (const Way &way : ways) {
            if (strcmp(way.name, "btree") != 0 && strcmp(way.name, "lower_bound") != 0 &&
                strcmp(way.name, "sqlite") != 0)
                printf(" %s %.1f", way.name, way.best / rate(ways, other));
        }
        printf("\n");
    }
    fflush(stdout);
}

void bench_kind(const std::string &kind, size_t rows, Csv &csv)
{
    Ids ids = make_ids(kind, rows);
    Database database;
    std::string path = directory() + "/ids.omen";
    open_omendb(database, path, ids, kind != "sequential");
    ids_core *core = ids_core_build(ids.data(), (uint32_t)ids.size());
    printf("%-11s %9zu ids: %u pieces, %.0f KB\n", kind.c_str(), ids.size(), ids_core_pieces(core),
           (double)ids_core_bytes(core) / 1024);
#if HAS_BTREE
    absl::btree_map<uint64_t, uint32_t> btree;
    for (size_t i = 0; i < ids.size(); i++)
        btree.emplace_hint(btree.end(), ids[i], (uint32_t)i);
#endif
#if HAS_SQLITE
    Sqlite sqlite(ids);
#endif
    std::vector<float> vectors(kBatch * kDim);
    for (bool there : {true, false}) {
        Ids wanted = choose(ids, there);
        uint64_t found = there ? kQueries : 0;
        double all = (double)kQueries;
        std::vector<Way> ways = {
            {"model", [&] { return ids_core_find(core, wanted.data(), kQueries); }, UINT64_MAX,
             all},
            {"model_batch", [&] { return ids_core_find_batch(core, wanted.data(), kQueries); },
             UINT64_MAX, all},
            {"get", [&] { return get_each(database, wanted, nullptr); }, found, all},
            {"batch", [&] { return get_batches(database, wanted, nullptr); }, found, all},
            {"get+v", [&] { return get_each(database, wanted, vectors.data()); }, found, all},
            {"batch+v", [&] { return get_batches(database, wanted, vectors.data()); }, found, all},
            {"lower_bound",
             [&] {
                 uint64_t sum = 0;
                 for (uint64_t id : wanted) {
                     auto at = std::lower_bound(ids.begin(), ids.end(), id);
                     sum += at != ids.end() && *at == id;
                 }
                 return sum;
             },
             found, all},
#if HAS_BTREE
            {"btree",
             [&] {
                 uint64_t sum = 0;
                 for (uint64_t id : wanted)
                     sum += btree.find(id) != btree.end();
                 return sum;
             },
             found, all},
#endif
#if HAS_SQLITE
            {"sqlite", [&] { return sqlite.count(wanted, kQueries / 4); }, found / 4, all / 4},
#endif
        };
        run(ways);
        print_rates(kind, ids.size(), there ? "found" : "missed", ways, csv);
    }
    double all = (double)ids.size();
    std::vector<Way> scans = {
        {"scan", [&] { return scan_all(database, nullptr); }, ids.size(), all},
        {"scan+v", [&] { return scan_all(database, vectors.data()); }, ids.size(), all},
#if HAS_BTREE
        {"btree",
         [&] {
             uint64_t sum = 0;
             for (const auto &item : btree)
                 sum += item.first;
             return sum;
         },
         UINT64_MAX, all},
#endif
#if HAS_SQLITE
        {"sqlite", [&] { return sqlite.count_all(); }, ids.size(), all},
#endif
    };
    run(scans);
    print_rates(kind, ids.size(), "scan", scans, csv);
    ids_core_free(core);
    database.close();
    remove_tree(path);
}

} // namespace

int main(int count, char **arguments)
{
    Csv csv("ids.csv", "ids,rows,what,way,millions_per_second");
    pin_to_core(0);
    printf("lookups and scans by id, millions a second of one core\n%s\n\n", machine().c_str());
    std::vector<std::string> kinds(arguments + 1, arguments + count);
    if (kinds.empty())
        kinds = {"sequential", "random", "clustered", "adversarial"};
    for (size_t rows :
         {setting("OMENDB_BENCH_IDS_SMALL", 100000), setting("OMENDB_BENCH_IDS_ROWS", 10000000)}) {
        for (const std::string &kind : kinds) {
            if (rows != 0)
                bench_kind(kind, rows, csv);
        }
    }
    return 0;
}
