// example.cpp: OmenDB from C++17, with handles that close themselves and errors that are thrown.
//
//     cc -std=c11 -c omendb.c
//     c++ -std=c++17 -I. examples/example.cpp omendb.o -o example -lm -lpthread
//     ./example [DIRECTORY]
//
// The header is C and needs no wrapper: a deleter for each handle and one function that throws are
// all there is to it. Handles close in the reverse of the order in which they were made, which is
// the order that the library asks for: collections before their database.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "omendb.h"

namespace
{

struct Closer {
    void operator()(omendb *db) const
    {
        omendb_close(db);
    }
    void operator()(omendb_collection *collection) const
    {
        omendb_collection_close(collection);
    }
    void operator()(omendb_txn *txn) const
    {
        omendb_txn_rollback(txn);
    }
};

using Database = std::unique_ptr<omendb, Closer>;
using Collection = std::unique_ptr<omendb_collection, Closer>;
using Transaction = std::unique_ptr<omendb_txn, Closer>;

void check(int code)
{
    if (code != OMENDB_OK) {
        throw std::runtime_error(std::string(omendb_strerror(code)) + ": " + omendb_errmsg());
    }
}

Database open(const std::string &path)
{
    omendb *db = nullptr;
    check(omendb_open(path.c_str(), nullptr, &db));
    return Database(db);
}

Collection open_collection(const Database &db, const std::string &name, std::uint32_t dim,
                           omendb_metric metric)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    omendb_collection *collection = nullptr;
    schema.dim = dim;
    schema.metric = metric;
    check(omendb_collection_open_or_create(db.get(), name.c_str(), &schema, &collection));
    return Collection(collection);
}

Transaction begin(const Database &db, int mode)
{
    omendb_txn *txn = nullptr;
    check(omendb_txn_begin(db.get(), mode, &txn));
    return Transaction(txn);
}

using Hit = std::pair<std::uint64_t, float>; // id, distance

std::vector<Hit> search(const Collection &collection, const std::vector<float> &vector,
                        std::size_t k, const Transaction &txn = nullptr)
{
    std::vector<std::uint64_t> ids(k);
    std::vector<float> distances(k);
    std::size_t count = 0;
    omendb_query query = OMENDB_QUERY_INIT;
    query.vector = vector.data();
    query.k = k;
    check(omendb_search(collection.get(), txn.get(), &query, ids.data(), distances.data(), &count));

    std::vector<Hit> hits;
    for (std::size_t i = 0; i < count; i++) {
        hits.emplace_back(ids[i], distances[i]);
    }
    return hits;
}

void print(const char *what, const std::vector<Hit> &hits)
{
    std::printf("%s:", what);
    for (const auto &[id, distance] : hits) {
        std::printf("  %llu (%.3f)", static_cast<unsigned long long>(id),
                    static_cast<double>(distance));
    }
    std::printf("\n");
}

void run(const std::string &path)
{
    const Database db = open(path);
    const Collection animals = open_collection(db, "animals", 4, OMENDB_COSINE);

    // Rows lie one behind the other; ids are ours.
    const std::vector<std::uint64_t> ids = {1, 2, 3};
    const std::vector<float> rows = {
        1.0f, 0.9f, 0.0f, 0.1f, // 1: wolf
        0.9f, 1.0f, 0.1f, 0.3f, // 2: dog
        0.0f, 0.1f, 1.0f, 0.2f, // 3: carp
    };
    check(omendb_put_batch(animals.get(), nullptr, ids.size(), ids.data(), rows.data(), OMENDB_F32,
                           nullptr));

    // The snapshot goes on seeing the carp.
    const Transaction before = begin(db, OMENDB_READ_ONLY);
    check(omendb_delete(animals.get(), nullptr, 3));

    const std::vector<float> fox = {0.9f, 0.8f, 0.1f, 0.0f};
    print("like a fox", search(animals, fox, 3));
    print("like a fox, before", search(animals, fox, 3, before));

    try {
        check(omendb_delete(animals.get(), nullptr, 3));
    } catch (const std::runtime_error &error) {
        std::printf("as expected: %s\n", error.what());
    }
}

} // namespace

int main(int argc, char **argv)
{
    try {
        run(argc > 1 ? argv[1] : "example-cpp.omen");
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
