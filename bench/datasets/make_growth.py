#!/usr/bin/env python3
"""Make a large set like sift-dev, for runs of growth: 128-d bytes, L2.

    build/venv/bin/python bench/datasets/make_growth.py

    --rows N       rows of the base                                    (10000000)
    --queries N    queries                                             (1000)
    --prefixes N.. base sizes for which exact neighbours are computed  (100000 1000000 10000000)
    --seed N       the same seed, the same set                         (1)
    --folder DIR   where sift-dev.base.u8bin is, and the output goes   (build/data)

Writes growth.base.u8bin, growth.query.u8bin and a growth-<rows>.gt.ibin for each prefix, any first
part of the base being a fair sample of it (vectors.py has the formats).

A row is bred from two rows of sift-dev that lie in the same of 4,096 cells (the nearest of as many
random rows). A descriptor has 16 places of 8 orientations; each place is taken from the first parent,
or with probability 0.35 from the second. Then each value is multiplied by 1 + 0.12 z, z standard
normal, and the whole is scaled to the length of the first parent and rounded. So zeros stay zeros,
places stay plausible, and rows lie about where real ones do, a little less densely: at a million rows
the local dimension of the queries is 26.7, that of sift-dev is 21.7. Parents of queries are 50,000
rows that no row of the base has.
"""

import argparse
import pathlib

import numpy as np

import vectors

BLOCK = 65536
CELLS, PLACE, CROSSOVER, NOISE = 4096, 8, 0.35, 0.12
QUERY_PARENTS = 50000


def main():
    options = parse_options()
    pool = vectors.open_vectors(str(options.folder / "sift-dev.base.u8bin"))
    cells = find_cells(pool, options.seed)
    split = len(pool) - QUERY_PARENTS
    write_rows(options, "query", options.queries, Herd(pool[split:], cells[split:]))
    write_rows(options, "base", options.rows, Herd(pool[:split], cells[:split]))
    base = vectors.open_vectors(str(options.folder / "growth.base.u8bin"))
    queries = vectors.open_vectors(str(options.folder / "growth.query.u8bin"))
    for prefix in options.prefixes:
        if prefix <= len(base):
            truth = vectors.exact_neighbours(base[:prefix], queries)
            vectors.write_truth(str(options.folder / f"growth-{prefix}.gt.ibin"), *truth)
            dimension = vectors.local_dimension(truth[1])
            print(f"growth: {prefix:,} rows, local dimension {dimension:.1f}")


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10000000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--prefixes", type=int, nargs="*", default=[100000, 1000000, 10000000])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("build/data"))
    return parser.parse_args()


def find_cells(pool, seed):
    """Return for each row which of the random rows is nearest."""
    random = np.random.default_rng([seed, 0])
    centres = pool[np.sort(random.choice(len(pool), CELLS, replace=False))].astype(np.float32)
    half_lengths = (centres ** 2).sum(axis=1) / 2
    cells = np.empty(len(pool), np.int32)
    progress = vectors.Progress("cells", len(pool))
    for first in range(0, len(pool), 16384):
        rows = pool[first:first + 16384].astype(np.float32)
        cells[first:first + len(rows)] = (rows @ centres.T - half_lengths).argmax(axis=1)
        progress.update(first + len(rows))
    progress.close()
    return cells


class Herd:
    """Rows to breed from, ordered by cell."""

    def __init__(self, rows, cells):
        order = np.argsort(cells, kind="stable")
        self.rows, cells = rows[order], cells[order]
        self.first = np.searchsorted(cells, cells, "left")
        self.count = np.searchsorted(cells, cells, "right") - self.first

    def breed(self, random, count):
        one = random.integers(len(self.rows), size=count)
        other = self.first[one] + (random.random(count) * self.count[one]).astype(np.int64)
        parent = self.rows[one].astype(np.float32)
        places = parent.shape[1] // PLACE
        swap = np.repeat(random.random((count, places), np.float32) < CROSSOVER, PLACE, axis=1)
        child = np.where(swap, self.rows[other], parent)
        child *= 1 + NOISE * random.standard_normal(child.shape, np.float32)
        child *= np.linalg.norm(parent, axis=1, keepdims=True) \
            / np.maximum(np.linalg.norm(child, axis=1, keepdims=True), 1)
        return np.clip(np.rint(child), 0, 255).astype(np.uint8)


def write_rows(options, name, count, herd):
    path = str(options.folder / f"growth.{name}.u8bin")
    writer = vectors.VectorWriter(path, count, herd.rows.shape[1])
    progress = vectors.Progress(f"rows ({name})", count)
    for block, first in enumerate(range(0, count, BLOCK)):
        random = np.random.default_rng([options.seed, len(name), block])
        writer.append(herd.breed(random, min(BLOCK, count - first)))
        progress.update(writer.done)
    progress.close()
    writer.close()


if __name__ == "__main__":
    main()
