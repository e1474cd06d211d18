#!/usr/bin/env python3
"""Compares searches under conditions: OmenDB and the libraries of PyPI, in one run.

    bench/run.sh filters                    all of it; says there what to install; 25 minutes
    build/filters/bin/python bench/filters.py --data packages --libraries OmenDB faiss zvec

    --data NAME..       sift, packages: see filter_data.py            (all that are there)
    --libraries NAME..  see filter_libraries.py                       (all that are installed)
    --rows, --queries N no more than these of each set                (200000, 1000)
    --rounds N          the best of so many counts                    (2)
    --seconds S         a point is measured for so long               (0.2)
    --threads N         threads that build                            (2)
    --build-limit S     a library that builds longer is left out      (600)
    --folder DIR        where sift-dev is                             (build/data)
    --out DIR           indexes, kept points; filters.csv is written  (build/bench/filters)
    --library FILE      OmenDB's shared library                       (build/libomendb.so)
    --native FILE       filters_native.cpp, compiled                  (build/bench_filters_native.so)
    --core N            what searching is pinned to                   (0)
    --fresh             measures again what was measured; indexes stay, failed ones are tried again

How it measures. Every library builds in a process of its own with M = 16 and ef_construction = 200,
or the same where it calls them otherwise, saves that, and is not built again while its version stays.
To search, each is loaded in a process of its own, pinned to one core with one thread; they take turns,
cell by cell. A cell is a condition for each query. Rates are by the CPU time of the process, of as
many queries as --seconds allow (30 at least, or 10 where each takes long), one call a query, then
again by the library's call for many where it has one: `qps` is the better of the two.

Recall is the share of the true ten nearest matches that was found, or of all where there are fewer.
In the cell "all" each library gets the first effort that reaches 0.95; with that it begins in every
cell, then goes up or down until 0.95 lies between two efforts. "Equal recall" is the rate there, on
the line between the two; of a library that is above with all efforts its best rate, of one that is
below with all the one of highest recall, which is then given.

Points are kept as they come, so that a run that was interrupted goes on where it was.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "datasets")]
import numpy as np  # noqa: E402

import filter_data  # noqa: E402
from filter_libraries import LIBRARIES  # noqa: E402

K = filter_data.K
TARGET = 0.95
LEAST_QUERIES, MOST_SECONDS = 30, 5  # so many are asked, but in so many times --seconds a third
HOPELESS = 3  # efforts in a row without a gain: of recall, or of the rate by this factor
GAIN = 1.03
FAR = 0.8  # below this recall every other effort is left out
SLOW = 100  # queries a second, where the cost of a call is nothing and batches are not tried
COLUMNS = ("dataset", "rows", "cell", "line", "share", "library", "effort", "fixed", "recall", "qps",
           "p99_us", "call", "short", "wrong", "queries", "build_s")


# Building and searching, each in a process of its own


def build(library, data, path):
    begun = time.monotonic()
    library.build(data, path)
    print(json.dumps({"seconds": time.monotonic() - begun}))


def serve(library, data, path, options):
    """Answer each line {"cell", "effort"} with what was measured, until there are no more."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the library prints is no answer
    os.sched_setaffinity(0, {options.core})
    library.load(data, path)
    print(json.dumps({"efforts": library.efforts}), file=answers)
    asked = None
    for line in sys.stdin:
        wanted = json.loads(line)
        if asked is None or asked.cell is not data.cells[wanted["cell"]]:
            asked = Asked(library, data, data.cells[wanted["cell"]])
        library.set_effort(wanted["effort"])
        print(json.dumps(asked.measure(options.seconds)), file=answers)


class Asked:
    """The queries of one cell, as a library takes them."""

    def __init__(self, library, data, cell):
        self.library, self.cell, self.queries = library, cell, data.queries
        self.truth, _ = data.truth(cell)
        self.groups = []
        self.masks = [None] * len(self.queries)
        self.prepared = [None] * len(self.queries)
        for condition, queries in cell.groups():
            mask = data.mask(condition)
            prepared = library.prepare(condition, mask)
            self.groups.append((queries, prepared))
            for query in queries:
                self.masks[query], self.prepared[query] = mask, prepared
        self.is_warm = False

    def measure(self, seconds):
        if not self.is_warm:
            self.library.one(self.queries[0], self.prepared[0])
            self.is_warm = True
        found, rate, times = self.measure_single(seconds)
        best = dict(self.judge(found), qps=rate, call="single", queries=len(found),
                    p99_us=float(np.percentile(times, 99)) / 1000)
        found, rate = self.measure_batches(len(found)) if rate > SLOW else (None, 0)
        if found is not None and rate > best["qps"]:
            best.update(self.judge(found), qps=rate, call="batch")
        return best

    def measure_single(self, seconds):
        clock, one, found, times = time.perf_counter_ns, self.library.one, [], []
        begun_cpu = time.process_time()
        for query, prepared in zip(self.queries, self.prepared):
            begun = clock()
            found.append(one(query, prepared))
            times.append(clock() - begun)
            cpu = time.process_time() - begun_cpu
            if cpu > seconds and (len(found) >= LEAST_QUERIES or (
                    cpu > MOST_SECONDS * seconds and len(found) >= LEAST_QUERIES // 3)):
                break
        return found, len(found) / cpu, times

    def measure_batches(self, count):
        """Return what the first `count` queries find, and the rate; None without such calls."""
        groups = [(queries[queries < count], prepared) for queries, prepared in self.groups]
        groups = [(self.queries[queries], queries, prepared) for queries, prepared in groups
                  if len(queries)]
        answers = []
        begun = time.process_time()
        for vectors, _, prepared in groups:
            answers.append(self.library.many(vectors, prepared))
            if answers[-1] is None:
                return None, 0
        rate = count / (time.process_time() - begun)
        found = [()] * count
        for (_, queries, _), answer in zip(groups, answers):
            for query, ids in zip(queries, answer):
                found[query] = ids
        return found, rate

    def judge(self, found):
        """Return recall, searches with fewer hits than there are, and hits that do not match."""
        hits = exist = short = wrong = 0
        for ids, truth, mask in zip(found, self.truth, self.masks):
            ids = np.asarray(ids).astype(np.int64)
            ids = ids[ids >= 0]
            true = truth[truth >= 0]
            hits += len(np.intersect1d(ids, true))
            exist += len(true)
            short += len(ids) < len(true)
            wrong += int((~mask[ids]).sum())
        return {"recall": hits / max(exist, 1), "short": short, "wrong": wrong}


# The run


class Unavailable(Exception):
    pass


class Contestant:
    """One library on one set: its index, the process that searches, what it measured."""

    def __init__(self, options, data, name):
        self.options, self.data, self.name = options, data, name
        self.kind, self.process, self.why = LIBRARIES[name], None, None
        if data.name not in getattr(self.kind, "sets", data.name):
            raise Unavailable("not for this set")
        self.version = self.find_version()
        self.index = self.kind.index or name
        self.folder = options.out / f"{data.name}-{data.rows}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.build_s = self.build_once()
        self.kept = Kept(options, self.folder / f"{name}.points", self.version)
        self.start_serving()
        self.fixed = None

    def find_version(self):
        if self.kind.module is None:
            if not self.options.library.exists():
                raise Unavailable(f"{self.options.library} is not there; see bench/run.sh")
            return hashlib.sha256(self.options.library.read_bytes()).hexdigest()[:16]
        if importlib.util.find_spec(self.kind.module) is None:
            raise Unavailable("it is not installed")
        if getattr(self.kind, "library", None) and not self.options.native.exists():
            raise Unavailable(f"{self.options.native} is not compiled; see bench/run.sh")
        names = {"faiss": "faiss-cpu", "sqlite_vec": "sqlite-vec"}
        return importlib.metadata.version(names.get(self.kind.module, self.kind.module))

    def build_once(self):
        """Return the seconds it took; they are kept beside the index with the version."""
        path = self.folder / f"{self.index}.json"
        figures = json.loads(path.read_text()) if path.exists() else {}
        if figures.get("version") != self.version or ("why" in figures and self.options.fresh):
            path.unlink(missing_ok=True)
            say(f"{self.data.name}: building {self.index} ({self.version})")
            remove(self.folder / self.index)
            figures = dict(self.build_now(), version=self.version)
            path.write_text(json.dumps(figures) + "\n")
        if "why" in figures:  # which is not tried again
            raise Unavailable(figures["why"])
        return figures["seconds"]

    def build_now(self):
        process = self.start("build", self.index)
        try:
            output, _ = process.communicate(timeout=self.options.build_limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return {"why": f"it takes more than {self.options.build_limit:.0f} s to build"}
        if process.returncode != 0:
            raise Unavailable("it cannot build: " + self.log_tail())
        return json.loads(output.strip().splitlines()[-1])

    def start(self, what, name):
        options, data = self.options, self.data
        threads = options.threads if what == "build" else 1
        limits = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
                  "TOKIO_WORKER_THREADS", "LANCE_CPU_THREADS")
        environment = dict(os.environ, **dict.fromkeys(limits, str(threads)))
        environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
        environment.update(OMENDB_LIBRARY=str(options.library), FILTERS_NATIVE=str(options.native))
        command = [sys.executable, __file__, "--rows", options.rows, "--queries", options.queries,
                   "--threads", threads, "--seconds", options.seconds, "--folder", options.folder,
                   "--out", options.out, "--core", options.core, "--child", what, name, data.name,
                   self.folder / self.index]
        self.log = self.folder / f"{name}.log"
        with open(self.log, "w") as log:
            return subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, text=True,
                                    stdout=subprocess.PIPE, stderr=log, env=environment, bufsize=1)

    def start_serving(self):
        self.process = self.start("serve", self.name)
        answer = self.answer()
        if answer is None:
            raise Unavailable("it cannot be loaded: " + self.why)
        self.efforts = answer["efforts"]

    def answer(self):
        """Return the next answer; None when the process has ended, which `why` then explains."""
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.process, self.why = None, self.log_tail()
        say(f"{self.data.name}: {self.name} stopped: {self.why}")
        return None

    def log_tail(self):
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process = None

    def measure(self, cell, step, turn):
        """Return the recall of an effort in a cell, measured unless this turn was before."""
        kept = self.kept.points.get((cell, step))
        if kept is not None and kept["turns"] > turn:
            return kept["recall"]
        if self.process is None:
            return None
        try:
            self.process.stdin.write(json.dumps({"cell": cell, "effort": self.efforts[step]}) + "\n")
        except BrokenPipeError:
            pass
        point = self.answer()
        return None if point is None else self.kept.add(cell, step, point)

    def measure_cell(self, cell, turn):
        """In the first turn look for the efforts around the target; then repeat those that count."""
        if turn > 0:
            for step in sorted(self.steps_that_count(cell)):
                if self.kept.points[cell, step]["queries"] > LEAST_QUERIES:  # others take too long
                    self.measure(cell, step, turn)
            return
        recall = self.measure(cell, self.fixed or 0, turn)
        if recall is not None and recall >= TARGET:
            self.go_down(cell)
        elif recall is not None:
            self.go_up(cell, recall)
        if cell == 0:
            good = [step for step in self.steps(0) if self.kept.points[0, step]["recall"] >= TARGET]
            self.fixed = min(good, default=max(self.steps(0), default=0))

    def go_down(self, cell):
        """From the effort that is fixed, while the recall suffices and the rate gains."""
        without_gain, best = 0, self.kept.points[cell, self.fixed or 0]["qps"]
        for step in range((self.fixed or 0) - 1, -1, -1):
            recall = self.measure(cell, step, 0)
            if recall is None or recall < TARGET:
                return
            rate = self.kept.points[cell, step]["qps"]
            without_gain = 0 if rate > best * GAIN else without_gain + 1
            best = max(best, rate)
            if without_gain == (HOPELESS if best > SLOW else 1):
                return

    def go_up(self, cell, recall):
        """From there until the recall suffices or gains no more; over every other effort at first."""
        without_gain, best, step, last = 0, recall, self.fixed or 0, len(self.efforts) - 1
        while recall < TARGET and step < last and without_gain < HOPELESS:
            stride = 2 if recall < FAR and step + 2 <= last else 1
            step += stride
            recall = self.measure(cell, step, 0)
            if recall is None:
                return
            without_gain = 0 if recall > best else without_gain + 1
            best = max(best, recall)
            if recall >= TARGET and stride == 2:
                self.measure(cell, step - 1, 0)

    def steps(self, cell):
        return sorted(step for at, step in self.kept.points if at == cell)

    def steps_that_count(self, cell):
        """Return the effort that is fixed, and those on which the rate at equal recall rests."""
        points = {step: self.kept.points[cell, step] for step in self.steps(cell)}
        good = [step for step in points if points[step]["recall"] >= TARGET]
        counting = {self.fixed} & set(points)
        if good:
            counting.add(max(good, key=lambda step: points[step]["qps"]))
            counting |= {min(good), *[step for step in points if step < min(good)][-1:]}
        elif points:
            counting.add(max(points, key=lambda step: points[step]["recall"]))
        return counting

    def rows(self, cell, share):
        for step in self.steps(cell):
            point = self.kept.points[cell, step]
            place = self.data.cells[cell]
            yield {"dataset": self.data.name, "rows": self.data.rows, "cell": place.name,
                   "line": int(place.line), "share": f"{share:.8f}", "library": self.name,
                   "effort": self.efforts[step], "fixed": int(step == self.fixed),
                   "recall": f"{point['recall']:.5f}", "qps": f"{point['qps']:.1f}",
                   "p99_us": f"{point['p99_us']:.1f}", "call": point["call"],
                   "short": point["short"], "wrong": point["wrong"], "queries": point["queries"],
                   "build_s": f"{self.build_s:.1f}"}


class Kept:
    """The points of one library, in a file to which each is appended as it comes."""

    def __init__(self, options, path, version):
        self.path, self.points = path, {}
        self.settings = {"version": version, "queries": options.queries, "seconds": options.seconds}
        lines = path.read_text().splitlines() if path.exists() and not options.fresh else []
        if not lines or json.loads(lines[0]) != self.settings:
            path.write_text(json.dumps(self.settings) + "\n")
            return
        for line in lines[1:]:
            if line.endswith("}"):  # the last may be torn
                point = json.loads(line)
                self.join(point.pop("cell"), point.pop("step"), point)

    def join(self, cell, step, point):
        known = self.points.get((cell, step), {"turns": 0, "qps": 0})
        better = point if point["qps"] > known["qps"] else known
        self.points[cell, step] = dict(better, turns=known["turns"] + 1)

    def add(self, cell, step, point):
        with open(self.path, "a") as file:
            file.write(json.dumps(dict(point, cell=cell, step=step)) + "\n")
        self.join(cell, step, point)
        return point["recall"]


def run_set(options, data):
    """Build what is missing, then measure; return the contestants."""
    contestants = []
    say(f"{data.name}: {data.rows:,} x {data.dim}, {len(data.queries):,} queries, {len(data.cells)} "
        "cells; truth")
    shares = [data.truth(cell)[1] for cell in data.cells]
    for name in options.libraries or LIBRARIES:
        try:
            contestants.append(Contestant(options, data, name))
        except Unavailable as reason:
            say(f"{data.name}: without {name}: {reason}")
    for turn in range(options.rounds):
        for number, cell in enumerate(data.cells):
            begun = time.monotonic()
            for contestant in contestants:
                contestant.measure_cell(number, turn)
            say(f"{data.name}: round {turn + 1} of {options.rounds}, {cell.name} "
                f"({time.monotonic() - begun:.1f} s)")
    for contestant in contestants:
        contestant.close()
    return contestants, shares


def say(line):
    print(time.strftime("%H:%M:%S "), line, file=sys.stderr, flush=True)


def remove(path):
    import shutil

    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


# The tables


def at_equal_recall(points):
    """Return rate and recall at the target, or at the highest recall that there is.

    points: dicts with recall and qps.
    """
    good = [point for point in points if point["recall"] >= TARGET]
    if not good:
        best = max(points, key=lambda point: (point["recall"], point["qps"]))
        return best["qps"], best["recall"]
    fastest = max(good, key=lambda point: point["qps"])
    below = [point for point in points if point["recall"] < TARGET]
    if not below:
        return fastest["qps"], fastest["recall"]
    high = min(good, key=lambda point: point["recall"])
    low = max(below, key=lambda point: point["recall"])
    part = (TARGET - low["recall"]) / (high["recall"] - low["recall"])
    between = low["qps"] ** (1 - part) * high["qps"] ** part
    return (between, TARGET) if between > fastest["qps"] else (fastest["qps"], fastest["recall"])


def print_tables(data, contestants, shares):
    names = [contestant.name for contestant in contestants]
    cells = [[list(contestant.rows(cell, share)) for contestant in contestants]
             for cell, share in enumerate(shares)]
    heads = {
        "queries a second at a recall of 0.95 (in brackets the recall of what never gets there)":
            show_equal,
        "recall at the effort that has 0.95 without a condition": show_fixed,
        "searches with fewer hits than there are, of the measured, at that effort": show_short,
    }
    for title, show in heads.items():
        print(f"\n{data.name}, {data.rows:,} rows: {title}\n")
        print("| condition | matching | " + " | ".join(names) + " |")
        print("| --- " * (2 + len(names)) + "|")
        for cell, share, columns in zip(data.cells, shares, cells):
            print(f"| {cell.name} | {share * 100:.4g} % | "
                  + " | ".join(show(rows) if rows else "-" for rows in columns) + " |")
    print("\n| library | version | a condition is | build s |\n| --- | --- | --- | --- |")
    for one in contestants:
        print(f"| {one.name} | {one.version} | {one.kind.how} | {one.build_s:.1f} |")
    wrong = {one.name: sum(point["wrong"] for point in one.kept.points.values())
             for one in contestants}
    print("\nhits that do not match:", {name: count for name, count in wrong.items() if count} or "none")
    print_behind(data, names, cells)


def numbers(rows):
    return [{"recall": float(row["recall"]), "qps": float(row["qps"])} for row in rows]


def show_equal(rows):
    rate, recall = at_equal_recall(numbers(rows))
    return f"{rate:,.0f}" if recall >= TARGET else f"{rate:,.0f} ({recall:.3f})"


def show_fixed(rows):
    return next((f"{float(row['recall']):.4f}" for row in rows if row["fixed"]), "-")


def show_short(rows):
    return next((f"{row['short']} / {row['queries']}" for row in rows if row["fixed"]), "-")


def print_behind(data, names, cells):
    """Name the cells in which OmenDB is not ahead, and those in which its recall falls."""
    if "OmenDB" not in names:
        return
    print("\nwhere OmenDB is not ahead of all that reach 0.95, or loses more than 0.005 of recall:")
    base = None
    for cell, columns in zip(data.cells, cells):
        ours = columns[names.index("OmenDB")]
        if not ours:
            continue
        rate, _ = at_equal_recall(numbers(ours))
        recall = float(next(row["recall"] for row in ours if row["fixed"]))
        base = recall if base is None else base
        for name, rows in zip(names, columns):
            if rows and not name.startswith("OmenDB"):
                other, other_recall = at_equal_recall(numbers(rows))
                if other > rate and other_recall >= TARGET:
                    print(f"  {cell.name}: {name} {other:,.0f}, OmenDB {rate:,.0f} a second")
        if recall < base - 0.005:
            print(f"  {cell.name}: recall {recall:.4f}, without a condition {base:.4f}")


def main():
    options = parse_options()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.child:
        what, name, data_name, path = options.child
        data = filter_data.SETS[data_name](options)
        library = LIBRARIES[name](options.threads)
        if what == "build":
            build(library, data, path)
        else:
            serve(library, data, path, options)
        return
    rows = []
    for name in options.data or filter_data.SETS:
        if name == "sift" and not (options.folder / "sift-dev.base.u8bin").exists():
            say(f"sift-dev is not in {options.folder}")
            continue
        data = filter_data.SETS[name](options)
        contestants, shares = run_set(options, data)
        rows += [row for contestant in contestants for cell, share in enumerate(shares)
                 for row in contestant.rows(cell, share)]
        print_tables(data, contestants, shares)
    write_table(options.out / "filters.csv", rows)


def write_table(path, rows):
    part = path.with_suffix(".part")
    with open(part, "w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(rows)
    part.rename(path)


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="*", choices=filter_data.SETS)
    parser.add_argument("--libraries", nargs="*", choices=LIBRARIES)
    parser.add_argument("--rows", type=int, default=200000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--build-limit", type=float, default=600)
    build_folder = HERE.parent / "build"
    for name, place in (("folder", "data"), ("out", "bench/filters"), ("library", "libomendb.so"),
                        ("native", "bench_filters_native.so")):
        parser.add_argument("--" + name, type=lambda text: pathlib.Path(text).resolve(),
                            default=build_folder / place)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
