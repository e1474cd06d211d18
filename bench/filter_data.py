"""The rows, queries and conditions of bench/filters.py, and what is true of them.

A condition is a tuple of (field, operator, value), all of which must hold; () holds always. The
operators are "<" and "=" of one value, and "has" of a list of texts. A cell is a name and a condition
for each query.

    sift      rows of sift-dev, with `shuffled`, the place of the row in a random order, of which a
              share of rows is cut (exactly), and `part`, the nearest of 64 centres: that of the
              query, or the farthest from it
    packages  the Debian packages of examples/data by their embeddings, with what the package lists
              say of them; the questions there and 500 packages, which are not rows, are the queries
"""

import json
import pathlib
import zlib

import numpy as np

import vectors

K = 10
CENTRES, ROUNDS, SAMPLE = 64, 5, 20000
HELD_OUT = 500
CALIBRATION = 1000  # queries at the end of the file, which are not measured
SHARES = (1, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0001, 0.00001)
PACKAGES = pathlib.Path(__file__).resolve().parent.parent / "examples" / "data"
PACKAGE_CONDITIONS = (
    (("installed_size", "<", 1000000),),
    (("tags", "has", "role::program"),),
    (("installed_size", "<", 300),),
    (("tags", "has", "uitoolkit::gtk"),),
    (("section", "=", "science"),),
    (("section", "=", "graphics"),),
    (("tags", "has", "role::program"), ("section", "=", "graphics")),
    (("installed_size", "<", 46),),
    (("section", "=", "editors"),),
    (("section", "=", "editors"), ("installed_size", "<", 1000)),
    (("tags", "has", "suite::emacs"),),
    (("tags", "has", "suite::emacs"), ("installed_size", "<", 1000)),
)


class Cell:
    """A name, whether its places on the axis of shares join to a line, the condition of each query."""

    def __init__(self, name, line, conditions):
        self.name, self.line, self.conditions = name, line, conditions

    def groups(self):
        """Return pairs of a condition and the numbers of the queries that have it."""
        groups = {}
        for query, condition in enumerate(self.conditions):
            groups.setdefault(condition, []).append(query)
        return [(condition, np.array(queries)) for condition, queries in groups.items()]


class Data:
    """base() and queries (float32), fields of the rows, cells, and the true neighbours of each."""

    def __init__(self, options):
        self.out = options.out
        self.read(options)
        self.dim = self.queries.shape[1]

    def mask(self, condition):
        """Return which rows match."""
        matching = np.ones(self.rows, bool)
        for field, operator, value in condition:
            column = self.fields[field]
            if operator == "has":
                matching &= np.fromiter((value in texts for texts in column), bool, self.rows)
            else:
                column = np.asarray(column)
                matching &= column < value if operator == "<" else column == value
        return matching

    def truth(self, cell):
        """Return the true neighbours (-1 where there are no more) and the mean share of matches."""
        def make():
            ids = np.full((len(self.queries), K), -1, np.int64)
            share = 0
            for condition, queries in cell.groups():
                rows = np.flatnonzero(self.mask(condition))
                share += len(rows) / self.rows * len(queries) / len(self.queries)
                found, _ = vectors.exact_neighbours(self.stored[rows], self.queries[queries], K)
                ids[queries, :found.shape[1]] = rows[found]
            return {"ids": ids, "share": share}

        kept = self.keep(f"truth-{zlib.crc32(repr(cell.conditions).encode()):08x}", make)
        return kept["ids"], float(kept["share"])

    def keep(self, name, make):
        """Return the arrays that make() returns, from a file where it was called before."""
        path = self.out / f"{self.name}-{self.rows}-{len(self.queries)}-{name}.npz"
        if not path.exists():
            part = path.with_suffix(".part")
            with open(part, "wb") as file:
                np.savez(file, **make())
            part.rename(path)
        with np.load(path) as file:
            return dict(file)


class Sift(Data):
    name, is_l2 = "sift", True

    def read(self, options):
        stored = vectors.open_vectors(str(options.folder / "sift-dev.base.u8bin"))
        queries = vectors.open_vectors(str(options.folder / "sift-dev.query.u8bin"))
        self.rows = min(options.rows, len(stored))
        self.stored = stored[:self.rows]
        self.queries = np.asarray(queries[:options.queries], np.float32)
        self.calibration = np.asarray(queries[-CALIBRATION:], np.float32)
        kept = self.keep("parts", self.make_parts)
        shuffled = np.random.default_rng(1).permutation(self.rows)
        self.fields = {"shuffled": shuffled, "part": kept["rows"]}
        self.cells = self.make_cells(kept)

    def base(self):
        return self.stored.astype(np.float32)

    def make_parts(self, block=65536):
        """Return the nearest centre of each row; that of each query, and the farthest."""
        centres = self.make_centres()
        blocks = [order_by_distance(self.stored[first:first + block], centres)[:, 0]
                  for first in range(0, self.rows, block)]
        order = order_by_distance(self.queries, centres)
        return {"rows": np.concatenate(blocks), "own": order[:, 0], "farthest": order[:, -1]}

    def make_centres(self):
        """Return what some rounds of k-means over a sample find."""
        sample = self.stored[::max(1, self.rows // SAMPLE)].astype(np.float32)
        centres = sample[::max(1, len(sample) // CENTRES)][:CENTRES].copy()
        for _ in range(ROUNDS):
            nearest = order_by_distance(sample, centres)[:, 0]
            for centre in np.unique(nearest):
                centres[centre] = sample[nearest == centre].mean(axis=0)
        return centres

    def make_cells(self, parts):
        count = len(self.queries)
        cells = [Cell("all", False, [()] * count)]
        for share in SHARES:
            condition = (("shuffled", "<", max(1, round(share * self.rows))),)
            cells.append(Cell(f"random {share * 100:g} %", True, [condition] * count))
        for name in ("own", "farthest"):
            conditions = [(("part", "=", int(part)),) for part in parts[name]]
            cells.append(Cell(name + " part", False, conditions))
        return cells


def order_by_distance(rows, centres):
    """Return the numbers of the centres for each row, nearest first."""
    wide = np.asarray(rows, np.float32)
    return np.argsort((centres ** 2).sum(axis=1) - 2 * wide @ centres.T, axis=1, kind="stable")


class Packages(Data):
    name, is_l2 = "packages", False
    calibration = None

    def read(self, options):
        units = np.fromfile(PACKAGES / "packages.i8", np.int8).reshape(-1, 384)
        questions = np.fromfile(PACKAGES / "questions.i8", np.int8).reshape(-1, 384)
        with open(PACKAGES / "packages.jsonl", encoding="utf-8") as file:
            said = [json.loads(line) for line in file]
        order = np.random.default_rng(1).permutation(len(units))
        held_out, rows = np.sort(order[:HELD_OUT]), np.sort(order[HELD_OUT:])
        self.rows = len(rows)
        self.stored = unit_length(units[rows])
        queries = unit_length(np.concatenate([units[held_out], questions]))
        self.queries = queries[:options.queries]
        self.fields = {name: [said[row][name] for row in rows]
                       for name in ("section", "installed_size", "tags")}
        count = len(self.queries)
        self.cells = [Cell("all", False, [()] * count)]
        for condition in PACKAGE_CONDITIONS:
            name = ", ".join(f"{field} {operator} {value}" for field, operator, value in condition)
            self.cells.append(Cell(name, True, [condition] * count))

    def base(self):
        return self.stored


def unit_length(rows):
    wide = rows.astype(np.float32)
    return wide / np.linalg.norm(wide, axis=1, keepdims=True)


SETS = {"sift": Sift, "packages": Packages}
