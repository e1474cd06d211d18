// bench.cpp: see bench.h.
//
// Data: the .u8bin, .fbin and .ibin files of the big-ann-benchmarks (uint32 count, uint32 dim, the
// elements). They are not part of the repository; the scripts in bench/datasets make two of the
// sets. When a file is missing, a packed copy (sift-dev.*.gz) in ../shared/data is unpacked; when
// that is missing too, OMENDB_DATA=synthetic makes a set that is good for comparing two builds of
// one library, not for comparing recall with anybody's published figures.
//
// The exact neighbours of a part of the rows are computed once and kept beside the results.

#include "bench.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <numeric>
#include <random>
#include <sstream>
#include <thread>

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace bench
{

namespace
{

[[noreturn]] void fail(const std::string &message)
{
    fprintf(stderr, "benchmark: %s\n", message.c_str());
    exit(1);
}

std::string data_directory()
{
    const char *given = getenv("OMENDB_DATA");
    return given && *given ? given : "build/data";
}

struct Files {
    const char *set; // as OMENDB_BENCH_DATA names it
    const char *stem;
    const char *ending;
    int metric;
};

constexpr Files kFiles[] = {
    {"sift", "sift-dev", ".u8bin", OMENDB_L2},
    {"text", "text", ".fbin", OMENDB_COSINE},
    {"wide", "wide", ".fbin", OMENDB_COSINE},
    {"growth", "growth", ".u8bin", OMENDB_L2},
};

const Files &chosen_files()
{
    const char *given = getenv("OMENDB_BENCH_DATA");
    std::string name = given && *given ? given : kFiles[0].set;
    for (const Files &files : kFiles)
        if (name == files.set)
            return files;
    fail("OMENDB_BENCH_DATA is " + name + ", not sift, text, wide or growth");
}

std::string missing_data_message(const Files &files)
{
    std::string message = data_directory() + "/" + files.stem + ".base" + files.ending;
    if (strcmp(files.set, "sift") != 0)
        return message + " is not there: bench/datasets/make_" + files.set + ".py makes it";
    return message +
           " is not there, nor is its .gz in ../shared/data.\n"
           "Point OMENDB_DATA to a folder with sift-dev.base.u8bin and "
           "sift-dev.query.u8bin\n(uint32 rows, uint32 dim, then the bytes; any set of "
           "8-bit vectors will do), or say\nOMENDB_DATA=synthetic to use a generated set.";
}

void make_directories(const std::string &path)
{
    for (size_t end = path.find('/', 1); end != std::string::npos; end = path.find('/', end + 1))
        mkdir(path.substr(0, end).c_str(), 0777);
    if (mkdir(path.c_str(), 0777) != 0 && errno != EEXIST)
        fail("cannot make " + path + ": " + strerror(errno));
}

// The path of a data file, unpacked if need be; "" when there is none.
std::string find_data(const std::string &name)
{
    std::string path = data_directory() + "/" + name;
    if (exists(path))
        return path;
    std::string packed = "../shared/data/" + name + ".gz";
    if (!exists(packed))
        packed = path + ".gz";
    if (!exists(packed))
        return "";
    make_directories(data_directory());
    std::string command =
        "gunzip -c '" + packed + "' > '" + path + ".part' && mv '" + path + ".part' '" + path + "'";
    if (system(command.c_str()) != 0)
        fail("cannot unpack " + packed);
    return path;
}

// Rows of a .u8bin or .fbin, as far as `limit`; how many the file has is in `in_file`.
template <typename Element>
std::vector<Element> read_rows(const std::string &path, size_t limit, size_t &rows, size_t &dim,
                               size_t &in_file)
{
    FILE *file = fopen(path.c_str(), "rb");
    uint32_t head[2];
    if (!file || fread(head, sizeof(head), 1, file) != 1)
        fail("cannot read " + path);
    in_file = head[0];
    rows = std::min<size_t>(limit, in_file);
    dim = head[1];
    std::vector<Element> elements(rows * dim);
    if (fread(elements.data(), sizeof(Element), elements.size(), file) != elements.size())
        fail(path + " is shorter than its header says");
    fclose(file);
    return elements;
}

// Points near a random surface of few dimensions, scaled to bytes: neighbours that a graph can
// find, as in real embeddings, and unlike independent noise.
void make_synthetic(size_t count, size_t dim, uint64_t seed, std::vector<uint8_t> &bytes)
{
    constexpr size_t kLatent = 16;
    std::mt19937_64 shape(1), random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> basis(kLatent * dim);
    for (float &value : basis)
        value = normal(shape);
    bytes.resize(count * dim);
    std::vector<float> point(dim);
    for (size_t row = 0; row < count; row++) {
        std::fill(point.begin(), point.end(), 128.0f);
        for (size_t axis = 0; axis < kLatent; axis++) {
            float amount = 8.0f * normal(random);
            for (size_t i = 0; i < dim; i++)
                point[i] += amount * basis[axis * dim + i];
        }
        for (size_t i = 0; i < dim; i++)
            bytes[row * dim + i] =
                (uint8_t)std::clamp(point[i] + 2.0f * normal(random), 0.0f, 255.0f);
    }
}

void load_synthetic(Dataset &data, size_t rows, size_t queries)
{
    std::vector<uint8_t> bytes;
    data.name = "synthetic";
    data.dim = 128;
    data.rows = rows;
    data.query_count = queries;
    make_synthetic(rows, data.dim, 2, data.bytes);
    make_synthetic(queries, data.dim, 3, bytes);
    data.queries.assign(bytes.begin(), bytes.end());
}

// Row count of the whole file, so that its own ground truth can be used when all of it is.
size_t load_files(Dataset &data, const Files &files, size_t rows, size_t queries)
{
    std::string base = find_data(std::string(files.stem) + ".base" + files.ending);
    std::string query = find_data(std::string(files.stem) + ".query" + files.ending);
    size_t dim, rows_in_file, queries_in_file;
    if (base.empty() || query.empty())
        fail(missing_data_message(files));
    data.name = files.stem;
    data.metric = files.metric;
    if (strcmp(files.ending, ".u8bin") == 0) {
        data.bytes = read_rows<uint8_t>(base, rows, data.rows, data.dim, rows_in_file);
        std::vector<uint8_t> bytes =
            read_rows<uint8_t>(query, queries, data.query_count, dim, queries_in_file);
        data.queries.assign(bytes.begin(), bytes.end());
    } else {
        data.floats = read_rows<float>(base, rows, data.rows, data.dim, rows_in_file);
        data.queries = read_rows<float>(query, queries, data.query_count, dim, queries_in_file);
    }
    if (dim != data.dim)
        fail("base and queries differ in dimension");
    return rows_in_file;
}

bool read_truth(Dataset &data, const std::string &path)
{
    uint32_t head[2];
    FILE *file = fopen(path.c_str(), "rb");
    if (!file)
        return false;
    if (fread(head, sizeof(head), 1, file) != 1 || head[0] < data.query_count || head[1] < kHits)
        fail(path + " has fewer queries or neighbours than needed");
    std::vector<uint32_t> all((size_t)head[0] * head[1]);
    if (fread(all.data(), 4, all.size(), file) != all.size())
        fail(path + " is cut short");
    fclose(file);
    data.truth.resize(data.query_count * kHits);
    for (size_t q = 0; q < data.query_count; q++)
        memcpy(&data.truth[q * kHits], &all[q * head[1]], kHits * 4);
    return true;
}

void find_truth(Dataset &data, size_t rows_in_file)
{
    std::string published = find_data(data.name + ".gt.ibin");
    std::string of_part = find_data(data.name + "-" + std::to_string(data.rows) + ".gt.ibin");
    if (rows_in_file == data.rows && !published.empty() && read_truth(data, published))
        return;
    if (!of_part.empty() && read_truth(data, of_part))
        return;
    std::string kept = directory() + "/" + data.name + "-" + std::to_string(data.rows) + "-" +
                       std::to_string(data.query_count) + ".truth";
    if (read_truth(data, kept))
        return;
    std::vector<uint32_t> rows(data.rows);
    for (size_t i = 0; i < rows.size(); i++)
        rows[i] = (uint32_t)i;
    data.truth = exact_neighbours(data, rows, data.queries.data(), data.query_count);
    uint32_t head[2] = {(uint32_t)data.query_count, (uint32_t)kHits};
    FILE *file = fopen(kept.c_str(), "wb");
    if (file) {
        fwrite(head, sizeof(head), 1, file);
        fwrite(data.truth.data(), 4, data.truth.size(), file);
        fclose(file);
    }
}

// Both sides are bytes, so the distance is an exact integer.
uint32_t squared_distance(const uint8_t *a, const uint8_t *b, size_t dim)
{
    int sum = 0;
    for (size_t i = 0; i < dim; i++) {
        int difference = (int)a[i] - (int)b[i];
        sum += difference * difference;
    }
    return (uint32_t)sum;
}

double product(const float *a, const float *b, size_t dim)
{
    constexpr size_t kChains = 8; // added up apart, so that the compiler may use vectors
    double sums[kChains] = {0};
    size_t i = 0;
    for (; i + kChains <= dim; i += kChains)
        for (size_t j = 0; j < kChains; j++)
            sums[j] += (double)a[i + j] * (double)b[i + j];
    for (; i < dim; i++)
        sums[0] += (double)a[i] * (double)b[i];
    return std::accumulate(sums, sums + kChains, 0.0);
}

// One query against rows of a set: numbers that order them as the metric does.
class Orderer
{
  public:
    Orderer(const Dataset &data, const float *query) : data_(data), query_(query)
    {
        if (!data.bytes.empty())
            bytes_.assign(query, query + data.dim);
    }

    double operator()(size_t row) const
    {
        size_t at = row * data_.dim;
        if (!data_.bytes.empty())
            return squared_distance(bytes_.data(), &data_.bytes[at], data_.dim);
        return -product(query_, &data_.floats[at], data_.dim);
    }

  private:
    const Dataset &data_;
    const float *query_;
    std::vector<uint8_t> bytes_; // the query, whole numbers 0..255 like the rows
};

uint64_t status_kilobytes(const std::string &status, const char *key)
{
    size_t at = status.find(key);
    return at == std::string::npos ? 0 : strtoull(status.c_str() + at + strlen(key), nullptr, 10);
}

std::string read_text(const char *path)
{
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

std::string with_commas(size_t number)
{
    std::string digits = std::to_string(number);
    for (size_t at = digits.size(); at > 3; at -= 3)
        digits.insert(at - 3, ",");
    return digits;
}

} // namespace

void Dataset::vector(size_t row, float *out) const
{
    vectors(row, 1, out);
}

void Dataset::vectors(size_t first, size_t count, float *out) const
{
    if (bytes.empty())
        std::copy_n(floats.data() + first * dim, count * dim, out);
    else
        std::copy_n(bytes.data() + first * dim, count * dim, out);
}

Dataset load_dataset(bool truth)
{
    Dataset data;
    size_t rows = setting("OMENDB_BENCH_ROWS", 1000000);
    size_t queries = setting("OMENDB_BENCH_QUERIES", 10000);
    size_t rows_in_file = 0;
    if (data_directory() == "synthetic")
        load_synthetic(data, rows, queries);
    else
        rows_in_file = load_files(data, chosen_files(), rows, queries);
    if (truth)
        find_truth(data, rows_in_file);
    return data;
}

std::vector<uint32_t> exact_neighbours(const Dataset &data, const std::vector<uint32_t> &rows,
                                       const float *queries, size_t query_count)
{
    std::vector<uint32_t> found(query_count * kHits, UINT32_MAX);
    Progress progress("exact neighbours", query_count);
    run_threads(kBuildThreads, [&](int thread) {
        std::vector<std::pair<double, uint32_t>> all(rows.size());
        for (size_t q = (size_t)thread; q < query_count; q += kBuildThreads) {
            Orderer order(data, queries + q * data.dim);
            for (size_t i = 0; i < rows.size(); i++)
                all[i] = {order(rows[i]), (uint32_t)i};
            size_t k = std::min(kHits, all.size());
            std::partial_sort(all.begin(), all.begin() + (long)k, all.end());
            for (size_t i = 0; i < k; i++)
                found[q * kHits + i] = all[i].second;
            if (thread == 0)
                progress.update(q);
        }
    });
    return found;
}

double recall(const uint32_t *truth, const uint64_t *found, size_t query_count)
{
    size_t hits = 0;
    for (size_t q = 0; q < query_count; q++)
        for (size_t i = 0; i < kHits; i++) {
            const uint64_t *first = found + q * kHits;
            hits += std::count(first, first + kHits, (uint64_t)truth[q * kHits + i]) > 0;
        }
    return (double)hits / (double)(query_count * kHits);
}

size_t setting(const char *name, size_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? (size_t)strtoull(text, nullptr, 10) : otherwise;
}

std::string directory()
{
    const char *given = getenv("OMENDB_BENCH_DIR");
    std::string path = given && *given ? given : "build/bench";
    make_directories(path);
    return path;
}

std::string index_path(const std::string &name)
{
    std::string set = &chosen_files() == kFiles ? "" : collection_name() + "-";
    std::string path =
        directory() + "/index-" + set + std::to_string(setting("OMENDB_BENCH_ROWS", 1000000));
    make_directories(path);
    return path + "/" + name;
}

std::string collection_name()
{
    return chosen_files().set;
}

void remove_tree(const std::string &path)
{
    DIR *folder = opendir(path.c_str());
    while (folder) {
        struct dirent *entry = readdir(folder);
        if (!entry)
            break;
        if (entry->d_name[0] != '.')
            unlink((path + "/" + entry->d_name).c_str());
    }
    if (folder)
        closedir(folder);
    rmdir(path.c_str());
}

void copy_tree(const std::string &from, const std::string &to)
{
    remove_tree(to);
    if (system(("cp -r '" + from + "' '" + to + "'").c_str()) != 0)
        fail("cannot copy " + from + " to " + to);
}

uint64_t tree_bytes(const std::string &path)
{
    struct stat info;
    if (stat(path.c_str(), &info) != 0)
        return 0;
    if (!S_ISDIR(info.st_mode))
        return (uint64_t)info.st_size;
    uint64_t bytes = 0;
    DIR *folder = opendir(path.c_str());
    while (folder) {
        struct dirent *entry = readdir(folder);
        if (!entry)
            break;
        if (entry->d_name[0] != '.')
            bytes += tree_bytes(path + "/" + entry->d_name);
    }
    if (folder)
        closedir(folder);
    return bytes;
}

bool exists(const std::string &path)
{
    return access(path.c_str(), F_OK) == 0;
}

double seconds_now()
{
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

static double clock_seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

double thread_cpu_seconds()
{
    return clock_seconds(CLOCK_THREAD_CPUTIME_ID);
}

double process_cpu_seconds()
{
    return clock_seconds(CLOCK_PROCESS_CPUTIME_ID);
}

double percentile(std::vector<double> values, double share)
{
    if (values.empty())
        return 0;
    size_t at = std::min(values.size() - 1, (size_t)(share * (double)values.size()));
    std::nth_element(values.begin(), values.begin() + (long)at, values.end());
    return values[at];
}

void pin_to_core(int core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

void run_threads(int count, const std::function<void(int)> &work)
{
    std::vector<std::thread> threads;
    for (int i = 1; i < count; i++)
        threads.emplace_back(work, i);
    work(0);
    for (std::thread &thread : threads)
        thread.join();
}

Memory process_memory()
{
    std::string status = read_text("/proc/self/status");
    Memory memory;
    memory.peak_bytes = status_kilobytes(status, "VmHWM:") * 1024;
    memory.resident_bytes = status_kilobytes(status, "VmRSS:") * 1024;
    memory.anonymous_bytes = status_kilobytes(status, "RssAnon:") * 1024;
    return memory;
}

// The mount whose path is the longest beginning of this one.
std::string file_system(const std::string &path)
{
    char *resolved = realpath(path.c_str(), nullptr);
    std::string full = resolved ? resolved : path, best, type = "unknown";
    free(resolved);
    std::ifstream mounts("/proc/mounts");
    std::string line;
    while (std::getline(mounts, line)) {
        std::istringstream fields(line);
        std::string device, point, kind;
        fields >> device >> point >> kind;
        bool inside = full.compare(0, point.size(), point) == 0;
        if (inside && point.size() >= best.size()) {
            best = point;
            type = kind;
        }
    }
    return type;
}

std::string machine()
{
    std::string cpu = read_text("/proc/cpuinfo"), name = "unknown CPU";
    size_t at = cpu.find("model name");
    if (at != std::string::npos) {
        at = cpu.find(": ", at) + 2;
        name = cpu.substr(at, cpu.find('\n', at) - at);
    }
    const char *tunables = getenv("GLIBC_TUNABLES");
    bool huge = tunables && strstr(tunables, "hugetlb=1");
    return name + ", " + std::to_string(std::thread::hardware_concurrency()) +
           " cores, OmenDB kernels " + omendb_kernels() +
           (huge ? ", huge pages for malloc" : ", malloc with small pages");
}

std::string run_self(const std::vector<std::string> &arguments)
{
    int pipes[2];
    if (pipe(pipes) != 0)
        fail("pipe");
    fflush(nullptr);
    pid_t child = fork();
    if (child == 0) {
        std::vector<char *> list{const_cast<char *>("bench")};
        for (const std::string &argument : arguments)
            list.push_back(const_cast<char *>(argument.c_str()));
        list.push_back(nullptr);
        dup2(pipes[1], 1);
        close(pipes[0]);
        close(pipes[1]);
        execv("/proc/self/exe", list.data());
        _exit(127);
    }
    close(pipes[1]);
    std::string output;
    char buffer[4096];
    for (ssize_t got; (got = read(pipes[0], buffer, sizeof(buffer))) > 0;)
        output.append(buffer, (size_t)got);
    close(pipes[0]);
    int status = 0;
    waitpid(child, &status, 0);
    bool killed_itself = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (child < 0 || (status != 0 && !killed_itself))
        fail("the part \"" + arguments[0] + "\" failed");
    return output;
}

Progress::Progress(const std::string &label, size_t total)
    : label_(label), total_(total), begun_(seconds_now()), visible_(isatty(2) != 0)
{
}

Progress::~Progress()
{
    if (visible_ && shown_ > 0)
        fprintf(stderr, "\r\033[K");
}

void Progress::update(size_t done)
{
    double now = seconds_now();
    if (!visible_ || now - shown_ < 0.2 || done == 0)
        return;
    shown_ = now;
    double rate = (double)done / (now - begun_ + 1e-9);
    fprintf(stderr, "\r%s: %s of %s (%s a second, %.0f s left)\033[K", label_.c_str(),
            with_commas(done).c_str(), with_commas(total_).c_str(),
            with_commas((size_t)rate).c_str(), (double)(total_ - std::min(done, total_)) / rate);
}

Csv::Csv(const std::string &name, const std::string &header)
    : file_(fopen((directory() + "/" + name).c_str(), "w"))
{
    if (!file_)
        fail("cannot write " + directory() + "/" + name);
    fprintf(file_, "%s\n", header.c_str());
}

Csv::~Csv()
{
    fclose(file_);
}

void Csv::line(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(file_, format, arguments);
    va_end(arguments);
    fputc('\n', file_);
    fflush(file_);
}

void check(int code, const char *what)
{
    if (code != OMENDB_OK)
        fail(std::string(what) + ": " + omendb_strerror(code) + ": " + omendb_errmsg());
}

void Database::open(const std::string &path, size_t dim, int metric)
{
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = (uint32_t)dim;
    schema.metric = (uint32_t)metric;
    schema.M = kM;
    schema.ef_construction = kEfConstruction;
    schema.scalar = collection_name() == "growth" ? OMENDB_U8 : OMENDB_F32;
    check(omendb_open(path.c_str(), &options, &db), "omendb_open");
    check(omendb_collection_open_or_create(db, collection_name().c_str(), &schema, &collection),
          "omendb_collection_open_or_create");
}

void Database::close()
{
    omendb_collection_close(collection);
    check(omendb_close(db), "omendb_close");
    db = nullptr;
    collection = nullptr;
}

void Database::add(const Dataset &data, size_t first, size_t count)
{
    std::vector<float> vectors(count * data.dim);
    std::vector<uint64_t> ids(count);
    data.vectors(first, count, vectors.data());
    for (size_t i = 0; i < count; i++)
        ids[i] = first + i;
    check(omendb_add_batch(collection, nullptr, count, ids.data(), vectors.data(), OMENDB_F32,
                           nullptr),
          "omendb_add_batch");
}

void Database::wait_for_graph(size_t rows)
{
    Progress progress("building in the background", rows);
    for (;;) {
        size_t left = collection_stats().unindexed_rows;
        if (left == 0)
            return;
        progress.update(rows - std::min(rows, left));
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
}

omendb_stats Database::stats() const
{
    omendb_stats stats = OMENDB_STATS_INIT;
    check(omendb_get_stats(db, &stats), "omendb_get_stats");
    return stats;
}

omendb_collection_stats Database::collection_stats() const
{
    omendb_collection_stats stats = OMENDB_COLLECTION_STATS_INIT;
    check(omendb_collection_get_stats(collection, &stats), "omendb_collection_get_stats");
    return stats;
}

void build_omendb(const std::string &path, const Dataset &data)
{
    constexpr size_t kBatch = 10000;
    Database database;
    Progress progress("OmenDB build", data.rows);
    remove_tree(path);
    database.options.threads = kBuildThreads;
    database.options.tail_limit = UINT64_C(1) << 40; // no writer waits for the graph
    database.options.stall_timeout_ms = 3600000;
    database.open(path, data.dim, data.metric);
    for (size_t first = 0; first < data.rows; first += kBatch)
        database.add(data, first, std::min(kBatch, data.rows - first));
    auto report = [](void *context, uint64_t done, uint64_t) {
        static_cast<Progress *>(context)->update(done);
        return 0;
    };
    check(omendb_optimize(database.db, report, &progress), "omendb_optimize");
    database.close();
}

} // namespace bench
