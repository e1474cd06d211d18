// peers.h: the libraries that OmenDB is compared with, behind one face: hnswlib (header only, so
// compiled with this program's flags, -O3 -march=native) and the HNSW of FAISS over flat f32 (as
// packaged). Both get the M and ef_construction of bench.h. A library that is not installed is left
// out.
#ifndef BENCH_PEERS_H
#define BENCH_PEERS_H

#include <memory>
#include <string>
#include <vector>

#include "bench.h"

namespace bench
{

class Peer
{
  public:
    virtual ~Peer() = default;
    virtual const char *name() const = 0;
    virtual void build(const Dataset &data) = 0; // with kBuildThreads
    virtual void save(const std::string &path) = 0;
    virtual void load(const std::string &path) = 0;
    virtual void set_ef(size_t ef) = 0;
    virtual void search(const float *query, uint64_t *ids) = 0; // kHits places
    // How many the search for the query computes; 0: the library does not tell.
    virtual double distances(const float *)
    {
        return 0;
    }
    // All at once on this thread: what the library itself offers for many queries.
    virtual void search_all(const float *queries, size_t count, uint64_t *ids) = 0;
};

std::vector<std::string> peer_names();
std::unique_ptr<Peer> make_peer(const std::string &name, size_t dim);

} // namespace bench

#endif
