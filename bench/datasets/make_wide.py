#!/usr/bin/env python3
"""Make the wide set: synthetic embeddings with the spectrum of real ones (768-d, cosine).

    build/venv/bin/python bench/datasets/make_wide.py

    --rows N       rows of the base                (100000)
    --queries N    queries                         (2000)
    --dim N        dimensions                      (768; up to 1536 is what embedding services give)
    --seed N       the same seed, the same set     (1)
    --folder DIR                                   (build/data)

Writes wide.base.fbin, wide.query.fbin and wide.gt.ibin (vectors.py has the formats).

A row is the sum of a mean that all share, a topic, a subtopic and the row's own part, turned by a
random rotation and scaled to unit length. What makes it like real embeddings and unlike independent
noise (the text set has 44 of 384 axes for half of its variance, and local dimension 26):

  - variance along axis i falls as (1 + i/6)^-1.1: of 768 axes about 40 hold half of it;
  - topics and subtopics have sizes of a Zipf-like law, so that regions differ in density;
  - each topic stretches the axes in its own way, so that one rotation cannot serve all regions;
  - rows of one subtopic differ in length of their own part: some lie near its centre, some far out.

Queries are drawn from the same mixture and are not in the base. At 100,000 rows of 768 dimensions the
local dimension of the queries is 24.9.
"""

import argparse
import pathlib

import numpy as np

import vectors

BLOCK = 8192
TOPICS, SUBTOPICS = 200, 4000
MEAN, TOPIC, SUBTOPIC, OWN = 0.6, 0.6, 0.4, 0.9  # lengths before scaling


def main():
    options = parse_options()
    options.folder.mkdir(parents=True, exist_ok=True)
    mixture = Mixture(options.dim, options.seed)
    for stream, (name, rows) in enumerate((("query", options.queries), ("base", options.rows))):
        writer = vectors.VectorWriter(str(options.folder / f"wide.{name}.fbin"), rows, options.dim)
        progress = vectors.Progress(f"rows ({name})", rows)
        for block, first in enumerate(range(0, rows, BLOCK)):
            random = np.random.default_rng([options.seed, 1 + stream, block])
            writer.append(mixture.draw(random, min(BLOCK, rows - first)))
            progress.update(writer.done)
        progress.close()
        writer.close()
    base = vectors.open_vectors(str(options.folder / "wide.base.fbin"))
    queries = vectors.open_vectors(str(options.folder / "wide.query.fbin"))
    truth = vectors.exact_neighbours(base, queries)
    vectors.write_truth(str(options.folder / "wide.gt.ibin"), *truth)
    dimension = vectors.local_dimension(truth[1] * 2)
    print(f"wide: {len(base):,} x {options.dim}, {len(queries):,} queries, "
          f"local dimension {dimension:.1f}")


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100000)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("build/data"))
    return parser.parse_args()


class Mixture:
    def __init__(self, dim, seed):
        random = np.random.default_rng([seed, 0])
        axes = (1 + np.arange(dim) / 6) ** -0.55  # standard deviations
        self.axes = (axes / np.sqrt((axes ** 2).sum())).astype(np.float32)
        rotation, _ = np.linalg.qr(random.standard_normal((dim, dim)))
        self.rotation = rotation.astype(np.float32)
        self.mean = MEAN * self.draws(random, 1)
        self.topic_of = random.choice(TOPICS, SUBTOPICS, p=zipf(TOPICS))
        self.stretch = np.exp(0.5 * random.standard_normal((TOPICS, dim))).astype(np.float32)
        topics = TOPIC * self.draws(random, TOPICS)
        own = SUBTOPIC * self.draws(random, SUBTOPICS) * self.stretch[self.topic_of]
        self.centres = self.mean + topics[self.topic_of] + own
        self.weights = random.permutation(zipf(SUBTOPICS))

    def draws(self, random, count):
        return random.standard_normal((count, len(self.axes)), np.float32) * self.axes

    def draw(self, random, count):
        subtopics = random.choice(SUBTOPICS, count, p=self.weights)
        length = OWN * random.gamma(6.0, 1 / 6.0, (count, 1)).astype(np.float32)
        own = self.draws(random, count) * self.stretch[self.topic_of[subtopics]]
        rows = (self.centres[subtopics] + length * own) @ self.rotation
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def zipf(count):
    weights = (10 + np.arange(count)) ** -0.8
    return weights / weights.sum()


if __name__ == "__main__":
    main()
