// peers.cpp: see peers.h.
//
// FAISS allocates and clears a mark for each row at every call of search, which a caller with one
// query at a time pays and one with many does not. Its throughput is therefore measured with
// search_all, the better case for it, and its latency with one query a call.

#include "peers.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#if __has_include(<hnswlib/hnswlib.h>)
#define HAVE_HNSWLIB 1
#include <hnswlib/hnswlib.h>
#else
#define HAVE_HNSWLIB 0
#endif

#if __has_include(<faiss/IndexHNSW.h>) && defined(_OPENMP)
#define HAVE_FAISS 1
#include <faiss/IndexHNSW.h>
#include <faiss/index_io.h>
#include <omp.h>
#else
#define HAVE_FAISS 0
#endif

namespace bench
{

namespace
{

#if HAVE_HNSWLIB
class Hnswlib : public Peer
{
  public:
    explicit Hnswlib(size_t dim) : dim_(dim), space_(dim)
    {
    }

    const char *name() const override
    {
        return "hnswlib";
    }

    void build(const Dataset &data) override
    {
        Progress progress("hnswlib build", data.rows);
        std::atomic<size_t> next{1};
        std::vector<float> first(dim_);
        index_ = std::make_unique<Index>(&space_, data.rows, kM, kEfConstruction);
        data.vector(0, first.data());
        index_->addPoint(first.data(), 0);
        run_threads(kBuildThreads, [&](int thread) {
            std::vector<float> vector(dim_);
            for (size_t row; (row = next.fetch_add(1)) < data.rows;) {
                data.vector(row, vector.data());
                index_->addPoint(vector.data(), row);
                if (thread == 0)
                    progress.update(row);
            }
        });
    }

    void save(const std::string &path) override
    {
        index_->saveIndex(path);
    }

    void load(const std::string &path) override
    {
        index_ = std::make_unique<Index>(&space_, path);
    }

    void set_ef(size_t ef) override
    {
        index_->setEf(ef);
    }

    void search(const float *query, uint64_t *ids) override
    {
        auto hits = index_->searchKnn(query, kHits);
        std::fill_n(ids, kHits, UINT64_MAX);
        for (size_t i = hits.size(); i-- > 0; hits.pop())
            ids[i] = hits.top().second;
    }

    void search_all(const float *queries, size_t count, uint64_t *ids) override
    {
        for (size_t q = 0; q < count; q++)
            search(queries + q * dim_, ids + q * kHits);
    }

  private:
    using Index = hnswlib::HierarchicalNSW<float>;
    size_t dim_;
    hnswlib::L2Space space_;
    std::unique_ptr<Index> index_;
};
#endif

#if HAVE_FAISS
class Faiss : public Peer
{
  public:
    explicit Faiss(size_t dim) : dim_(dim)
    {
    }

    const char *name() const override
    {
        return "faiss";
    }

    void build(const Dataset &data) override
    {
        constexpr size_t kBatch = 50000;
        Progress progress("FAISS build", data.rows);
        std::vector<float> vectors(kBatch * dim_);
        omp_set_num_threads(kBuildThreads);
        index_ = std::make_unique<faiss::IndexHNSWFlat>((int)dim_, kM);
        index_->hnsw.efConstruction = kEfConstruction;
        for (size_t first = 0; first < data.rows; first += kBatch) {
            size_t count = std::min(kBatch, data.rows - first);
            data.vectors(first, count, vectors.data());
            index_->add((faiss::Index::idx_t)count, vectors.data());
            progress.update(first + count);
        }
        omp_set_num_threads(1);
    }

    void save(const std::string &path) override
    {
        faiss::write_index(index_.get(), path.c_str());
    }

    void load(const std::string &path) override
    {
        omp_set_num_threads(1);
        index_.reset(dynamic_cast<faiss::IndexHNSWFlat *>(faiss::read_index(path.c_str())));
    }

    void set_ef(size_t ef) override
    {
        index_->hnsw.efSearch = (int)ef;
    }

    void search(const float *query, uint64_t *ids) override
    {
        search_all(query, 1, ids);
    }

    void search_all(const float *queries, size_t count, uint64_t *ids) override
    {
        distances_.resize(count * kHits);
        labels_.resize(count * kHits);
        index_->search((faiss::Index::idx_t)count, queries, (faiss::Index::idx_t)kHits,
                       distances_.data(), labels_.data());
        std::copy(labels_.begin(), labels_.end(), ids);
    }

  private:
    size_t dim_;
    std::unique_ptr<faiss::IndexHNSWFlat> index_;
    std::vector<float> distances_;
    std::vector<faiss::Index::idx_t> labels_;
};
#endif

} // namespace

std::vector<std::string> peer_names()
{
    std::vector<std::string> names;
    const char *wanted = getenv("OMENDB_BENCH_PEERS");
    if (wanted && strcmp(wanted, "none") == 0)
        return names;
#if HAVE_HNSWLIB
    names.push_back("hnswlib");
#endif
#if HAVE_FAISS
    names.push_back("faiss");
#endif
    return names;
}

std::unique_ptr<Peer> make_peer(const std::string &name, size_t dim)
{
#if HAVE_HNSWLIB
    if (name == "hnswlib")
        return std::make_unique<Hnswlib>(dim);
#endif
#if HAVE_FAISS
    if (name == "faiss")
        return std::make_unique<Faiss>(dim);
#endif
    (void)dim;
    return nullptr;
}

} // namespace bench
