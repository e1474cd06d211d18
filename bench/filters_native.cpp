// filters_native.cpp: hnswlib and USearch under a condition, for bench/filters.py.
//
// The filter of hnswlib is a function of Python there, which costs a call a row, and the Python of
// USearch has none. So their headers are compiled here, as their C++ users do, and searched under a
// bitmap of the rows that match. The indexes are those that their Python modules have saved. For
// the distances of USearch the process must have loaded numkong, which importing usearch does.
//
// Each call answers `count` queries one after the other on the calling thread. `rows` is NULL (all
// match) or a bit for each row; `ids` gets kHits places a query, -1 where there is no hit. A
// failure gives NULL or -1 and a line on standard error.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <hnswlib/hnswlib.h>
#include <memory>
#include <usearch/index_dense.hpp>

namespace
{

constexpr size_t kHits = 10;

bool has(const uint64_t *rows, uint64_t row)
{
    return (rows[row / 64] >> (row % 64) & 1) != 0;
}

struct Hnswlib {
    size_t dim;
    std::unique_ptr<hnswlib::SpaceInterface<float>> space;
    std::unique_ptr<hnswlib::HierarchicalNSW<float>> index;
};

struct Rows : hnswlib::BaseFilterFunctor {
    const uint64_t *rows;
    explicit Rows(const uint64_t *matching) : rows(matching)
    {
    }
    bool operator()(hnswlib::labeltype row) override
    {
        return has(rows, row);
    }
};

using Usearch = unum::usearch::index_dense_t;

template <typename Element>
Usearch::search_result_t search(const Usearch &index, const Element *query, const uint64_t *rows)
{
    if (rows == nullptr)
        return index.search(query, kHits);
    return index.filtered_search(query, kHits, [&](uint64_t row) { return has(rows, row); });
}

} // namespace

extern "C" {

void *filters_hnswlib_load(const char *path, size_t dim, int is_l2)
{
    try {
        auto made = std::make_unique<Hnswlib>();
        made->dim = dim;
        if (is_l2)
            made->space = std::make_unique<hnswlib::L2Space>(dim);
        else
            made->space = std::make_unique<hnswlib::InnerProductSpace>(dim);
        made->index =
            std::make_unique<hnswlib::HierarchicalNSW<float>>(made->space.get(), std::string(path));
        return made.release();
    } catch (const std::exception &error) {
        fprintf(stderr, "hnswlib: %s\n", error.what());
        return nullptr;
    }
}

int filters_hnswlib_search(void *handle, size_t ef, const float *queries, size_t count,
                           const uint64_t *rows, int64_t *ids)
{
    Hnswlib &loaded = *static_cast<Hnswlib *>(handle);
    Rows filter(rows);
    try {
        loaded.index->setEf(ef);
        for (size_t i = 0; i < count; i++) {
            auto found = loaded.index->searchKnn(queries + i * loaded.dim, kHits,
                                                 rows == nullptr ? nullptr : &filter);
            for (size_t hit = found.size(); hit < kHits; hit++)
                ids[i * kHits + hit] = -1;
            for (; !found.empty(); found.pop())
                ids[i * kHits + found.size() - 1] = (int64_t)found.top().second;
        }
        return 0;
    } catch (const std::exception &error) {
        fprintf(stderr, "hnswlib: %s\n", error.what());
        return -1;
    }
}

void *filters_usearch_load(const char *path)
{
    auto loaded = Usearch::make(path);
    if (!loaded) {
        fprintf(stderr, "usearch: %s\n", loaded.error.release());
        return nullptr;
    }
    return new Usearch(std::move(loaded.index));
}

// dim: of a query, which is of bytes for an index of bytes, else of f32.
int filters_usearch_search(void *handle, size_t dim, int is_bytes, size_t ef, const void *queries,
                           size_t count, const uint64_t *rows, int64_t *ids)
{
    Usearch &index = *static_cast<Usearch *>(handle);
    index.change_expansion_search(ef);
    for (size_t i = 0; i < count; i++) {
        auto found =
            is_bytes
                ? search(index, static_cast<const unum::usearch::i8_t *>(queries) + i * dim, rows)
                : search(index, static_cast<const float *>(queries) + i * dim, rows);
        if (!found) {
            fprintf(stderr, "usearch: %s\n", found.error.release());
            return -1;
        }
        uint64_t keys[kHits];
        size_t hits = found.dump_to(keys);
        for (size_t hit = 0; hit < kHits; hit++)
            ids[i * kHits + hit] = hit < hits ? (int64_t)keys[hit] : -1;
    }
    return 0;
}
}
