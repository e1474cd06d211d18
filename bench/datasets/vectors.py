"""Files of vectors and exact neighbours, as the big-ann-benchmarks have them (little-endian).

    .fbin, .u8bin  uint32 rows, uint32 dim, rows * dim of float32 or uint8
    .ibin          uint32 queries, uint32 k, queries * k ids (uint32), then as many float32 distances

Distances: squared L2 for bytes, 1 - cosine for floats, which are all of unit length.
"""

import os
import sys
import time

import numpy as np

NEIGHBOURS = 100
TYPES = {".fbin": np.dtype("<f4"), ".u8bin": np.dtype("u1")}
# Candidates beyond k that are compared again in double precision: a product in single precision
# errs by about 1e-7, and far fewer rows than these lie that close to the k-th.
SPARE = 50


def open_vectors(path):
    """Maps a file of vectors as an array of rows."""
    element = TYPES[os.path.splitext(path)[1]]
    rows, dim = np.fromfile(path, "<u4", 2)
    return np.memmap(path, element, "r", 8, (int(rows), int(dim)))


class VectorWriter:
    """Writes rows in pieces under a temporary name; the file appears when all are there."""

    def __init__(self, path, rows, dim):
        self.path, self.rows, self.dim, self.done = path, rows, dim, 0
        self.element = TYPES[os.path.splitext(path)[1]]
        self.file = open(path + ".part", "wb")
        self.file.write(np.array([rows, dim], "<u4").tobytes())

    def append(self, vectors):
        assert vectors.shape[1] == self.dim
        self.file.write(np.ascontiguousarray(vectors, self.element).tobytes())
        self.done += len(vectors)

    def close(self):
        assert self.done == self.rows
        self.file.close()
        os.replace(self.path + ".part", self.path)


def write_truth(path, ids, distances):
    with open(path + ".part", "wb") as file:
        file.write(np.array(ids.shape, "<u4").tobytes())
        file.write(ids.astype("<u4").tobytes())
        file.write(distances.astype("<f4").tobytes())
    os.replace(path + ".part", path)


def exact_neighbours(base, queries, k=NEIGHBOURS, block=32768):
    """Returns ids and distances of the k nearest rows, nearest first, equal ones by id.

    Blocks of the product of queries and rows in single precision choose candidates. Products of
    bytes are whole numbers below 2^24 up to 258 dimensions, hence exact; those of floats are
    computed again in double precision for the candidates.
    """
    whole = base.dtype == np.uint8
    keep = min(k + (0 if whole else SPARE), len(base))
    wide = np.asarray(queries, np.float32)
    best = np.full((len(wide), keep), np.inf, np.float32)
    ids = np.zeros((len(wide), keep), np.int64)
    progress = Progress("exact neighbours", len(base))
    for first in range(0, len(base), block):
        rows = np.asarray(base[first:first + block], np.float32)
        scores = -(wide @ rows.T)
        if whole:
            scores = 2 * scores + np.einsum("ij,ij->i", rows, rows)
        best, ids = merge_nearest(best, ids, scores, first, keep)
        progress.update(first + len(rows))
    progress.close()
    if whole:
        exact = best + np.einsum("ij,ij->i", wide, wide)[:, None]
    else:
        exact = np.stack([1 - base[rows].astype(np.float64) @ query.astype(np.float64)
                          for rows, query in zip(ids, wide)])
    order = np.lexsort((ids, exact), axis=1)[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(exact, order, 1)


def merge_nearest(best, ids, scores, first, keep):
    """Adds a block of scores, whose columns are rows from `first` on, to the best so far."""
    count = scores.shape[1]
    if count > keep:
        part = np.argpartition(scores, keep - 1, axis=1)[:, :keep]
        scores, columns = np.take_along_axis(scores, part, 1), part + first
    else:
        columns = np.broadcast_to(np.arange(first, first + count), scores.shape)
    scores = np.concatenate([best, scores], axis=1)
    columns = np.concatenate([ids, columns], axis=1)
    order = np.lexsort((columns, scores), axis=1)[:, :keep]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(columns, order, 1)


def local_dimension(squared):
    """Returns the mean local intrinsic dimension by maximum likelihood, of squared distances."""
    squared = np.maximum(np.asarray(squared, np.float64), 1e-12)
    return float(np.mean(-1 / np.mean(0.5 * np.log(squared[:, :-1] / squared[:, -1:]), axis=1)))


class Progress:
    """Prints what is done, the rate and the time left; a line in place, only on a terminal."""

    def __init__(self, label, total, done=0):
        self.label, self.total, self.begun_with = label, total, done
        self.begun = self.shown = time.monotonic()
        self.visible = sys.stderr.isatty()

    def update(self, done):
        now = time.monotonic()
        if not self.visible or (now - self.shown < 0.2 and done < self.total):
            return
        self.shown = now
        rate = (done - self.begun_with) / max(now - self.begun, 1e-9)
        left = (self.total - done) / max(rate, 1e-9)
        sys.stderr.write(f"\r{self.label}: {done:,} of {self.total:,} "
                         f"({rate:,.0f} a second, {left:,.0f} s left)\033[K")
        sys.stderr.flush()

    def close(self):
        if self.visible:
            sys.stderr.write("\r\033[K")
