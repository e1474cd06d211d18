"""OmenDB from Python, in one page. Run it with `python3 examples/python/example.py [DIRECTORY]`
after `make`; it needs numpy."""

import sys

import numpy as np

import omendb

path = sys.argv[1] if len(sys.argv) > 1 else "example-python.omen"
rng = np.random.default_rng(7)

with omendb.open(path) as db:
    if "docs" in db:
        db.drop("docs")
    docs = db.collection("docs", dim=64, metric="cosine")

    # A batch is one commit: all of it is on the disk when add() returns.
    vectors = rng.standard_normal((2000, 64), dtype=np.float32)
    ids = docs.add(vectors)
    print(f"{len(docs)} records, ids {ids[0]} to {ids[-1]}, kernels {omendb.kernels()}")

    # One vector, then many at once over all cores.
    found, distances = docs.search(vectors[42], k=3)
    print("nearest to 42:", list(zip(found.tolist(), distances.round(3).tolist())))
    questions = vectors[:100] + 0.1 * rng.standard_normal((100, 64), dtype=np.float32)
    found, distances = docs.search(questions, k=10, recall=0.95)
    exact, _ = docs.search(questions, k=10, exact=True)
    recall = np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, exact)]) / 10
    print(f"100 searches at once: arrays of shape {found.shape}, recall@10 {recall:.3f}")

    # A snapshot goes on seeing what was there.
    with db.snapshot() as before:
        print("deleted:", docs.delete([1, 2, 3, 999_999]))
        print(f"{docs.count()} records now, {docs.count(txn=before)} in the snapshot")

    docs.put(vectors[7], ids=8)
    found, _ = docs.search_like(7, k=1)
    print("most like 7:", int(found[0]))

    # Keys and metadata go with the vectors; a filter says which records may be found.
    notes = db.collection("notes", dim=64, metric="cosine")
    notes.put_records(
        {"vector": vectors[i], "key": f"note {i}", "metadata": {"year": 2000 + i, "draft": i > 3}}
        for i in range(6))
    found, _ = notes.search(vectors[0], filter="year > ? AND NOT draft", parameters=[2001])
    print("after 2001:", sorted(notes.get_key(int(i)) for i in found))
    notes.update(notes.find("note 2"), {"draft": True})
    print(notes.count("draft"), "drafts, the first:", next(notes.scan(filter="draft", metadata=True))[2])

    try:
        docs.add(np.full(64, np.nan))
    except omendb.Invalid as error:
        print(f"refused ({error.name}): {error}")

with omendb.open(path, read_only=True) as db:
    docs = db.collection("docs")
    print(docs, "after opening again:", len(docs), "records")
    first, vector = next(docs.scan())
    assert first == 0 and np.array_equal(vector, vectors[0])
