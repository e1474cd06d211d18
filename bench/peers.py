#!/usr/bin/env python3
"""Measures OmenDB and the graph libraries of PyPI in one run: recall@10 against queries a second.

    python3 -m venv build/peers && build/peers/bin/pip install -r bench/requirements.txt
    bench/run.sh peers                                     1,000,000 rows of each set, or all it has
    build/peers/bin/python bench/peers.py --rows 100000 --data text --libraries hnswlib svs-lvq8

    --data NAME..       sift, text, wide                              (all that are there)
    --libraries NAME..  see LIBRARIES below                           (all that are installed)
    --rows, --queries N no more than these of each set                (1000000, 2000)
    --rounds N          the best of so many counts                    (3)
    --threads N         threads that build; OmenDB always has two     (2)
    --folder DIR        where the sets are                            (build/data)
    --out DIR           indexes and results; peers.csv is written     (build/bench)
    --rebuild NAME..    libraries whose kept indexes are not used
    --programs DIR      compiled benchmarks, for OmenDB               (build/bench)
    --core N            what searching is pinned to                   (0)

How it measures. Every library gets M = 16 (32 links at the base) and ef_construction = 200, or the
same degree and search width where it calls them otherwise. It builds in a process of its own with
two threads, saves what it built and is never rebuilt while that is there. For searching each library
is loaded in a process of its own, pinned to one core with one thread; these take turns, effort by
effort, so that a slow spell of the machine meets all of them. Rates are by the CPU time of the
process, latencies by the clock.

One query at a time, a call of Python costs between 1 and 20 us, and some libraries set up more than
a query needs at each call. So all queries are also given to the library's own batch call with one
thread, and `qps` is the better of the two (`call` says which); p50 and p99 are always of single
calls. OmenDB and what is compiled have single calls only.
"""

import argparse
import csv
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "datasets"))
import vectors  # noqa: E402

K = 10
DEGREE, EF_CONSTRUCTION = 16, 200
EFFORTS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 900, 1280)
# Of OmenDB's adaptive stop, in thousandths, as bench_search takes them.
STRETCHES = (1030, 1050, 1070, 1090, 1110, 1140, 1170, 1200, 1240, 1280, 1330, 1390, 1450, 1520,
             1600)
EPSILONS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4)
ENOUGH = 0.9995  # a curve is not followed beyond this recall
COLUMNS = ("dataset", "rows", "library", "parameters", "ef", "recall", "qps", "p50_us", "p99_us",
           "build_s", "peak_mb", "build_cpu_s", "resident_mb", "call")
SETS = {"sift": ("sift-dev", ".u8bin"), "text": ("text", ".fbin"), "wide": ("wide", ".fbin")}


# Data


class Set:
    """Rows of unit length under the inner product (cosine), or bytes under L2."""

    def __init__(self, options, name):
        stem, ending = SETS[name]
        self.name, self.stem, self.out, self.threads = name, stem, options.out, options.threads
        self.stored = vectors.open_vectors(str(options.folder / f"{stem}.base{ending}"))
        self.truth_path = options.folder / f"{stem}.gt.ibin"
        self.all_rows = len(self.stored)
        self.rows = min(options.rows, self.all_rows)
        self.stored = self.stored[:self.rows]
        queries = vectors.open_vectors(str(options.folder / f"{stem}.query{ending}"))
        self.queries = np.asarray(queries[:options.queries], np.float32)
        self.dim = self.queries.shape[1]
        self.is_l2 = name == "sift"

    def base(self):
        return np.asarray(self.stored, np.float32)

    def truth(self):
        """Return the ids of the true neighbours, computed once for a part of the rows.

        The file is where the compiled benchmarks look for it, too.
        """
        path = self.out / f"{self.stem}-{self.rows}-{len(self.queries)}.truth"
        if self.rows == self.all_rows and self.truth_path.exists():
            path = self.truth_path
        elif not path.exists():
            vectors.write_truth(str(path), *vectors.exact_neighbours(self.stored, self.queries, K))
        count, k = np.fromfile(path, "<u4", 2)
        ids = np.fromfile(path, "<u4", int(count) * int(k), offset=8).reshape(count, k)
        return ids[:len(self.queries), :K].astype(np.int64)


# Libraries. Each has build(base), save, load, set_effort; one(query) and many(queries) return ids.


class Library:
    module = None  # what must be installed
    efforts = EFFORTS
    parameters = f"M={DEGREE} ef_construction={EF_CONSTRUCTION}"
    sets = tuple(SETS)

    def __init__(self, data):
        self.dim, self.is_l2, self.threads = data.dim, data.is_l2, data.threads
        self.effort = EFFORTS[0]
        if self.module:
            self.api = importlib.import_module(self.module)
        self.prepare()

    def prepare(self):
        pass

    def warm_up(self, base):
        """What a process does once whatever it builds."""

    def set_effort(self, effort):
        self.effort = effort

    def convert(self, queries):
        return queries


class Hnswlib(Library):
    module = "hnswlib"

    def prepare(self):
        self.index = self.api.Index("l2" if self.is_l2 else "ip", self.dim)

    def build(self, base):
        self.index.init_index(len(base), M=DEGREE, ef_construction=EF_CONSTRUCTION)
        self.index.add_items(base, num_threads=self.threads)

    def save(self, path):
        self.index.save_index(path)

    def load(self, path):
        self.index.load_index(path)

    def set_effort(self, effort):
        self.index.set_ef(effort)

    def one(self, query):
        return self.index.knn_query(query, K, num_threads=1)[0][0]

    def many(self, queries):
        return self.index.knn_query(queries, K, num_threads=1)[0]


class Faiss(Library):
    module = "faiss"

    def make(self):
        metric = self.api.METRIC_L2 if self.is_l2 else self.api.METRIC_INNER_PRODUCT
        return self.api.IndexHNSWFlat(self.dim, DEGREE, metric)

    def build(self, base):
        self.api.omp_set_num_threads(self.threads)
        self.index = self.make()
        self.index.hnsw.efConstruction = EF_CONSTRUCTION
        if not self.index.is_trained:
            self.index.train(base)
        self.index.add(base)

    def save(self, path):
        self.api.write_index(self.index, path)

    def load(self, path):
        self.api.omp_set_num_threads(1)
        self.index = self.api.read_index(path)

    def set_effort(self, effort):
        self.index.hnsw.efSearch = effort

    def one(self, query):
        return self.index.search(query[None], K)[1][0]

    def many(self, queries):
        return self.index.search(queries, K)[1]


class FaissBytes(Faiss):
    """8-bit codes: the bytes themselves where the data are bytes, scaled ones elsewhere."""

    def make(self):
        quantizer = self.api.ScalarQuantizer
        metric = self.api.METRIC_L2 if self.is_l2 else self.api.METRIC_INNER_PRODUCT
        kind = quantizer.QT_8bit_direct if self.is_l2 else quantizer.QT_8bit
        return self.api.IndexHNSWSQ(self.dim, kind, DEGREE, metric)


class Usearch(Library):
    module = "usearch.index"
    scalar = "f32"

    def prepare(self):
        self.index = self.api.Index(
            ndim=self.dim, metric="l2sq" if self.is_l2 else "cos", dtype=self.scalar,
            connectivity=DEGREE, expansion_add=EF_CONSTRUCTION)

    def build(self, base):
        self.index.add(np.arange(len(base), dtype=np.uint64), self.convert(base),
                       threads=self.threads)

    def save(self, path):
        self.index.save(path)

    def load(self, path):
        self.index.load(path)

    def set_effort(self, effort):
        self.index.expansion_search = effort

    def one(self, query):
        return self.index.search(query, K, threads=1).keys

    def many(self, queries):
        return self.index.search(queries, K, threads=1).keys


class UsearchBytes(Usearch):
    """Bytes of SIFT are shifted by 128, which leaves L2 as it is; cosine scales by itself."""

    scalar = "i8"

    def convert(self, rows):
        return (rows - 128).astype(np.int8) if self.is_l2 else rows


class Svs(Library):
    """Vamana of Intel's Scalable Vector Search, over floats or codes of its own."""

    module = "svs"
    parameters = f"degree={2 * DEGREE} window={EF_CONSTRUCTION}"

    def distance(self):
        return self.api.DistanceType.L2 if self.is_l2 else self.api.DistanceType.MIP

    def build(self, base):
        settings = self.api.VamanaBuildParameters(
            alpha=1.2 if self.is_l2 else 0.95, graph_max_degree=2 * DEGREE,
            window_size=EF_CONSTRUCTION)
        self.index = self.api.Vamana.build(settings, self.source(base), self.distance(),
                                           num_threads=self.threads)

    def source(self, base):
        return base

    def save(self, path):
        os.makedirs(path, exist_ok=True)
        self.index.save(*(f"{path}/{part}" for part in ("config", "graph", "data")))

    def load(self, path):
        self.index = self.api.Vamana(f"{path}/config", self.api.GraphLoader(f"{path}/graph"),
                                     self.stored(f"{path}/data"), self.distance(),
                                     query_type=self.query_type(), num_threads=1)

    def query_type(self):
        return self.api.DataType.float32

    def stored(self, path):
        return self.api.VectorDataLoader(path, self.api.DataType.float32)

    def set_effort(self, effort):
        settings = self.index.search_parameters
        settings.buffer_config = self.api.SearchBufferConfig(effort, effort)
        self.index.search_parameters = settings

    def one(self, query):
        return self.index.search(query[None], K)[0][0]

    def many(self, queries):
        return self.index.search(queries, K)[0]


class SvsBytes(Svs):
    sets = ("sift",)

    def convert(self, queries):
        return queries.astype(np.uint8)

    source = convert

    def query_type(self):
        return self.api.DataType.uint8

    def stored(self, path):
        return self.api.VectorDataLoader(path, self.api.DataType.uint8)


class SvsCompressed(Svs):
    """Codes are made from a file, which is written beside the index while it is built."""

    def source(self, base):
        self.file = "svs-source.fvecs"
        self.api.write_vecs(np.ascontiguousarray(base), self.file)
        loader = self.api.VectorDataLoader(self.file, self.api.DataType.float32, self.dim)
        return self.compressed(loader)

    def build(self, base):
        try:
            super().build(base)
        finally:
            os.unlink(self.file)


class SvsLvq8(SvsCompressed):
    parameters = Svs.parameters + " LVQ8"
    bits = (8, 0)

    def compressed(self, loader):
        return self.api.LVQLoader(loader, *self.bits, padding=32)

    def stored(self, path):
        return self.api.LVQLoader(path, padding=32)


class SvsLvq4x8(SvsLvq8):
    parameters = Svs.parameters + " LVQ4x8"
    bits = (4, 8)


class SvsLeanVec(SvsCompressed):
    """A projection to half of the dimensions as 8-bit codes, and 8-bit codes of all to rerank."""

    parameters = Svs.parameters + " LeanVec dims/2 LVQ8 LVQ8"
    sets = ("text", "wide")

    def compressed(self, loader):
        return self.api.LeanVecLoader(loader, self.dim // 2)

    def stored(self, path):
        return self.api.LeanVecLoader(path)


class Voyager(Library):
    module = "voyager"

    def prepare(self):
        space = self.api.Space.Euclidean if self.is_l2 else self.api.Space.Cosine
        self.index = self.api.Index(space, self.dim, M=DEGREE, ef_construction=EF_CONSTRUCTION)

    def build(self, base):
        self.index.add_items(base, num_threads=self.threads)

    def save(self, path):
        self.index.save(path)

    def load(self, path):
        self.index = self.api.Index.load(path)

    def one(self, query):
        return self.index.query(query, K, num_threads=1, query_ef=self.effort)[0]

    def many(self, queries):
        return self.index.query(queries, K, num_threads=1, query_ef=self.effort)[0]


class Nmslib(Library):
    module = "nmslib"

    def prepare(self):
        self.index = self.api.init(method="hnsw", space="l2" if self.is_l2 else "cosinesimil")

    def build(self, base):
        self.index.addDataPointBatch(base)
        self.index.createIndex({"M": DEGREE, "efConstruction": EF_CONSTRUCTION,
                                "indexThreadQty": self.threads, "post": 0})

    def save(self, path):
        self.index.saveIndex(path, save_data=False)

    def load(self, path):
        self.index.loadIndex(path, load_data=False)

    def set_effort(self, effort):
        self.index.setQueryTimeParams({"efSearch": effort})

    def one(self, query):
        return self.index.knnQuery(query, K)[0]

    def many(self, queries):
        return [ids for ids, _ in self.index.knnQueryBatch(queries, K, num_threads=1)]


class DiskAnn(Library):
    """DiskANN's graph in memory, over floats. On rows of unit length L2 orders as cosine does."""

    module = "diskannpy"
    parameters = f"degree={2 * DEGREE} complexity={EF_CONSTRUCTION} alpha=1.2"

    def build(self, base):
        self.base = base

    def save(self, path):
        os.makedirs(path, exist_ok=True)
        self.api.build_memory_index(self.base, "l2", path, complexity=EF_CONSTRUCTION,
                                    graph_degree=2 * DEGREE, num_threads=self.threads)

    saving_is_building = True

    def load(self, path):
        self.index = self.api.StaticMemoryIndex(path, num_threads=1,
                                                initial_search_complexity=max(EFFORTS))

    def one(self, query):
        return self.index.search(query, K, self.effort).identifiers

    def many(self, queries):
        return self.index.batch_search(queries, K, self.effort, 1).identifiers


class Ngt(Library):
    """ANNG: an incremental graph, a tree for entries; its effort is a share added to the radius."""

    module = "ngtpy"
    efforts = EPSILONS
    parameters = f"ANNG edges={2 * DEGREE}"
    saving_is_building = True

    def build(self, base):
        self.base = base

    def save(self, path):
        self.api.create(path, self.dim, edge_size_for_creation=2 * DEGREE,
                        distance_type="L2" if self.is_l2 else "Normalized L2")
        index = self.api.Index(path)
        index.batch_insert(self.base, num_threads=self.threads)
        index.save()

    def load(self, path):
        self.index = self.api.Index(path, read_only=True)

    def one(self, query):
        return self.index.search(query, K, self.effort, with_distance=False)

    def many(self, queries):
        return [self.one(query) for query in queries]


class PyNnDescent(Library):
    """Compiles itself at the first use, which is no part of building."""

    module = "pynndescent"
    efforts = EPSILONS
    parameters = f"n_neighbors={2 * DEGREE}"

    def warm_up(self, base):
        self.build(base[:5000])

    def build(self, base):
        self.index = self.api.NNDescent(base, "sqeuclidean" if self.is_l2 else "dot",
                                        n_neighbors=2 * DEGREE, n_jobs=self.threads, random_state=1)
        self.index.prepare()

    def save(self, path):
        import pickle

        with open(path, "wb") as file:
            pickle.dump(self.index, file)

    def load(self, path):
        import pickle

        with open(path, "rb") as file:
            self.index = pickle.load(file)

    def one(self, query):
        return self.index.query(query[None], K, epsilon=self.effort)[0][0]

    def many(self, queries):
        return self.index.query(queries, K, epsilon=self.effort)[0]


class Upstream(Library):
    """The package omendb, whose product this design is named after; a database on disk."""

    module = "omendb"
    saving_is_building = True

    def build(self, base):
        self.base = base

    def save(self, path):
        os.makedirs(path, exist_ok=True)
        field = {"dim": self.dim, "m": DEGREE, "ef_construction": EF_CONSTRUCTION,
                 "metric": "l2" if self.is_l2 else "cosine"}
        database = self.api.create(path + "/db", {"dense": field})
        for first in range(0, len(self.base), 1000):
            rows = self.base[first:first + 1000]
            database.set(ids=[str(first + i) for i in range(len(rows))], vectors=rows)
        database.optimize()
        database.flush()
        database.close()

    def load(self, path):
        self.database = self.api.open(path + "/db")

    def one(self, query):
        return [int(hit["id"]) for hit in self.database.search(query, k=K, ef=self.effort)]

    def many(self, queries):
        found = self.database.search_batch(queries, k=K, ef=self.effort)
        return [[int(hit["id"]) for hit in hits] for hits in found]


LIBRARIES = {
    "hnswlib": Hnswlib, "faiss": Faiss, "faiss-sq8": FaissBytes, "usearch": Usearch,
    "usearch-i8": UsearchBytes, "svs": Svs, "svs-u8": SvsBytes, "svs-lvq8": SvsLvq8,
    "svs-lvq4x8": SvsLvq4x8, "svs-leanvec": SvsLeanVec, "voyager": Voyager, "nmslib": Nmslib,
    "diskann": DiskAnn, "ngt": Ngt, "pynndescent": PyNnDescent, "omendb-upstream": Upstream,
}
COMPILED = ("OmenDB",)  # measured by bench_search, which speaks as serve() does


# Building and serving, each in a process of its own


def build(name, data, path):
    """Build, save, and print what it took."""
    base = data.base()
    base.sum()  # resident before the measurement
    library = LIBRARIES[name](data)
    library.warm_up(base)
    before, begun, cpu = status_bytes("VmRSS"), time.monotonic(), time.process_time()
    library.build(base)
    if hasattr(library, "saving_is_building"):
        library.save(path)
    seconds, cpu = time.monotonic() - begun, time.process_time() - cpu
    peak = status_bytes("VmHWM") - before
    if not hasattr(library, "saving_is_building"):
        library.save(path)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak}))


def status_bytes(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key + ":"))


def serve(name, data, path, core):
    """Answer each line "effort" with "recall qps p50_us p99_us call", until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the library prints is no answer
    os.sched_setaffinity(0, {core})
    truth = data.truth()
    library = LIBRARIES[name](data)
    before = status_bytes("VmRSS")
    library.load(path)
    queries = library.convert(data.queries)
    library.set_effort(library.efforts[0])
    library.one(queries[0])
    library.many(queries)
    print("ready", status_bytes("VmRSS") - before, file=answers)
    for line in sys.stdin:
        library.set_effort(float(line) if "." in line else int(line))
        print(*measure(library, queries, truth), file=answers)


def measure(library, queries, truth):
    clock, one, found, times = time.perf_counter_ns, library.one, [], []
    cpu = time.process_time()
    for query in queries:
        begun = clock()
        ids = one(query)
        times.append(clock() - begun)
        found.append(ids)
    single = len(queries) / (time.process_time() - cpu)
    cpu = time.process_time()
    library.many(queries)
    batch = len(queries) / (time.process_time() - cpu)
    hits = sum(len(np.intersect1d(np.asarray(ids, np.int64), true))
               for ids, true in zip(found, truth))
    p50, p99 = np.percentile(times, (50, 99)) / 1000
    return hits / truth.size, max(single, batch), p50, p99, "batch" if batch > single else "single"


# The run


def main():
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.child:
        kind, library, data_name, path = options.child
        data = Set(options, data_name)
        os.chdir(options.out)
        if kind == "build":
            build(library, data, path)
        else:
            serve(library, data, path, options.core)
        return
    options.folder, options.out = options.folder.resolve(), options.out.resolve()
    options.programs = options.programs.resolve()
    with open(options.out / "peers.csv", "w", newline="") as file:
        rows = csv.DictWriter(file, COLUMNS)
        rows.writeheader()
        for name in options.data or SETS:
            stem, ending = SETS[name]
            if not (options.folder / f"{stem}.base{ending}").exists():
                print(f"{name}: {stem}.base{ending} is not in {options.folder}")
                continue
            for row in run_set(options, name):
                rows.writerow(row)
                file.flush()


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="*", choices=SETS)
    parser.add_argument("--libraries", nargs="*", choices=[*COMPILED, *LIBRARIES])
    parser.add_argument("--rows", type=int, default=1000000)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("build/data"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/bench"))
    parser.add_argument("--rebuild", nargs="*", default=[], choices=[*COMPILED, *LIBRARIES])
    parser.add_argument("--programs", type=pathlib.Path, default=pathlib.Path("build/bench"))
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_set(options, name):
    """Build what is missing, then measure; return the rows of the table."""
    data = Set(options, name)
    data.truth()
    contestants = []
    for library in options.libraries or [*COMPILED, *LIBRARIES]:
        try:
            contestants.append(Contestant(options, data, library))
        except Unavailable as reason:
            print(f"{name}: without {library}: {reason}")
    print(f"\n{name}: {data.rows:,} x {data.dim}, {len(data.queries):,} queries, recall@{K}, "
          f"one thread on core {options.core}, best of {options.rounds}")
    steps = max(len(EFFORTS), len(EPSILONS), len(STRETCHES))
    progress = vectors.Progress(f"searching ({name})", options.rounds * steps * len(contestants))
    for round_number in range(options.rounds):
        for step in range(steps):
            for number, contestant in enumerate(contestants, 1):
                contestant.measure(round_number, step)
                done = (round_number * steps + step) * len(contestants) + number
                progress.update(done)
    progress.close()
    for contestant in contestants:
        contestant.close()
    print_targets(contestants)
    return [row for contestant in contestants for row in contestant.rows()]


class Unavailable(Exception):
    pass


class Contestant:
    """One library on one set: its index, the process that searches, its curve."""

    def __init__(self, options, data, name):
        self.options, self.data, self.name = options, data, name
        self.curve = []
        if name in COMPILED:
            self.efforts, self.parameters = STRETCHES, Library.parameters
            self.commands = self.compiled_commands()
        else:
            kind = LIBRARIES[name]
            if data.name not in kind.sets:
                raise Unavailable("not for this set")
            if importlib.util.find_spec(kind.module.split(".")[0]) is None:
                raise Unavailable("it is not installed")
            self.efforts, self.parameters = kind.efforts, kind.parameters
            self.commands = self.python_commands()
        self.figures = self.build_once()
        self.process = self.start(self.commands["serve"], threads=1)
        answer = self.process.stdout.readline().split()
        if not answer or answer[0] != "ready":
            raise Unavailable("it cannot be loaded: " + self.log_tail())
        self.resident = int(answer[1])

    def folder(self):
        folder = self.options.out / f"index-{self.data.name}-{self.data.rows}"
        folder.mkdir(exist_ok=True)
        return folder

    def python_commands(self):
        options = self.options
        common = [sys.executable, os.path.abspath(__file__), "--rows", self.data.rows,
                  "--queries", len(self.data.queries), "--threads", options.threads,
                  "--folder", options.folder, "--out", options.out, "--core", options.core, "--child"]
        return {kind: [*map(str, common), kind, self.name, self.data.name,
                       str(self.folder() / self.name)] for kind in ("build", "serve")}

    def compiled_commands(self):
        programs = {"build": "bench_build", "serve": "bench_search"}
        commands = {kind: [str(self.options.programs / program), *extra, self.name]
                    for (kind, program), extra in zip(programs.items(), ([], ["--serve"]))}
        if not all(os.path.exists(command[0]) for command in commands.values()):
            raise Unavailable("bench_build and bench_search are not compiled; see bench/run.sh")
        return commands

    def build_once(self):
        """Return what building took; a cached index keeps its figures beside it."""
        path = self.folder() / (self.name + ".json")
        if not path.exists() or self.name in self.options.rebuild:
            what = f"building {self.name} ({self.data.name}, {self.data.rows:,} rows)"
            print(what, file=sys.stderr)
            process = self.start(self.commands["build"], self.options.threads)
            output, _ = process.communicate()
            if process.returncode != 0:
                raise Unavailable("it cannot build: " + self.log_tail())
            last = output.strip().splitlines()[-1]
            if not last.startswith("{"):
                seconds, cpu, peak = map(float, last.split()[:3])
                last = json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak})
            path.write_text(last + "\n")
        return json.loads(path.read_text())

    def start(self, command, threads):
        limits = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                  "NUMBA_NUM_THREADS")
        environment = dict(os.environ, **dict.fromkeys(limits, str(threads)))
        environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
        environment.update(
            OMENDB_BENCH_DATA=self.data.name, OMENDB_BENCH_ROWS=str(self.data.rows),
            OMENDB_BENCH_QUERIES=str(len(self.data.queries)), OMENDB_DATA=str(self.options.folder),
            OMENDB_BENCH_DIR=str(self.options.out), OMENDB_BENCH_CORE=str(self.options.core))
        self.log = self.folder() / (self.name + ".log")
        with open(self.log, "w") as log:
            return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    stderr=log, env=environment, text=True, bufsize=1)

    def log_tail(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "it said nothing"

    def measure(self, round_number, step):
        if self.process is None or step >= len(self.efforts):
            return
        if round_number == 0:
            if self.curve and self.curve[-1]["recall"] >= ENOUGH:
                return
            self.curve.append({"ef": self.efforts[step], "recall": 0, "qps": 0})
        elif step >= len(self.curve):
            return
        point = self.curve[step]
        self.process.stdin.write(f"{point['ef']}\n")
        answer = self.process.stdout.readline().split()
        if len(answer) != 5:
            print(f"{self.data.name}: {self.name} stopped: {self.log_tail()}")
            self.close()
            self.curve.pop(step)
            return
        recall, qps, p50, p99 = map(float, answer[:4])
        if qps > point["qps"]:
            point.update(recall=recall, qps=qps, p50_us=p50, p99_us=p99, call=answer[4])

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process = None

    def rows(self):
        for point in self.curve:
            yield {"dataset": self.data.name, "rows": self.data.rows, "library": self.name,
                   "parameters": self.parameters, "ef": point["ef"],
                   "recall": f"{point['recall']:.5f}", "qps": f"{point['qps']:.1f}",
                   "p50_us": f"{point['p50_us']:.1f}", "p99_us": f"{point['p99_us']:.1f}",
                   "build_s": f"{self.figures['seconds']:.1f}",
                   "peak_mb": f"{self.figures['peak'] / 1e6:.0f}",
                   "build_cpu_s": f"{self.figures['cpu']:.1f}",
                   "resident_mb": f"{self.resident / 1e6:.0f}", "call": point["call"]}


def rate_at(curve, target):
    """Interpolate the logarithm of the rate between the points around a recall; None outside."""
    for low, high in zip(curve, curve[1:]):
        if low["recall"] <= target <= high["recall"] and low["recall"] < high["recall"]:
            part = (target - low["recall"]) / (high["recall"] - low["recall"])
            return low["qps"] ** (1 - part) * high["qps"] ** part
    return None


def print_targets(contestants):
    targets = (0.90, 0.95, 0.99, 0.999)
    rates = {c.name: [rate_at(c.curve, target) for target in targets] for c in contestants}
    base = rates.get("hnswlib", [None] * len(targets))
    print(f"{'':16}" + "".join(f"{target:>18}" for target in targets) + "   build s  CPU s  peak MB"
          "  resident MB")
    for contestant in contestants:
        cells = [f"{rate:10,.0f} ({rate / reference:4.2f} x)" if rate and reference
                 else f"{rate:10,.0f}         " if rate else f"{'-':>10}         "
                 for rate, reference in zip(rates[contestant.name], base)]
        figures = contestant.figures
        print(f"{contestant.name:16}" + "".join(f"{cell:>18}" for cell in cells) +
              f"  {figures['seconds']:8.1f} {figures['cpu']:6.1f} {figures['peak'] / 1e6:8.0f} "
              f"{contestant.resident / 1e6:12.0f}")


if __name__ == "__main__":
    main()
