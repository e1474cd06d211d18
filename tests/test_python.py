#!/usr/bin/env python3
"""examples/python/omendb.py: what it promises, and that Python programs cannot crash the library.

Needs numpy and the shared library: OMENDB_LIBRARY, or libomendb.so in BUILD. Without either it says
so and passes. The last line is "N passed, M failed".
"""

import datetime
import gc
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("BUILD", ROOT / "build")).resolve()
sys.path.insert(0, str(ROOT / "examples" / "python"))
sys.dont_write_bytecode = True

try:
    import numpy as np
except ImportError:
    print("skipped: numpy is not installed")
    print("0 passed, 0 failed")
    sys.exit(0)

if "OMENDB_LIBRARY" not in os.environ:
    for library in (BUILD / "libomendb.so", BUILD / "libomendb.dylib"):
        if library.exists():
            os.environ["OMENDB_LIBRARY"] = str(library)
            break
    else:
        print(f"skipped: there is no shared library in {BUILD}")
        print("0 passed, 0 failed")
        sys.exit(0)

import omendb  # noqa: E402

RNG = np.random.default_rng(11)


def exact(rows, query, k):
    distances = ((rows.astype(np.float64) - query) ** 2).sum(axis=1)
    return np.argsort(distances, kind="stable")[:k]


class InMemory(unittest.TestCase):
    def setUp(self):
        self.db = omendb.open(":memory:")
        self.addCleanup(self.db.close)
        self.rows = RNG.standard_normal((500, 16), dtype=np.float32)

    def filled(self, **options):
        docs = self.db.collection("docs", dim=16, **options)
        docs.add(self.rows)
        return docs

    def test_adding_gives_ids(self):
        docs = self.db.collection("docs", dim=16)
        self.assertEqual(docs.add(self.rows[0]), 0)
        self.assertEqual(docs.add(self.rows[1], 77), 77)
        ids = docs.add(self.rows[2:5])
        self.assertEqual((ids.dtype, ids.tolist()), (np.uint64, [78, 79, 80]))
        self.assertEqual(docs.add(self.rows[5:7], [5, 3]).tolist(), [5, 3])
        self.assertEqual(len(docs), 7)
        self.assertIn(77, docs)
        self.assertNotIn(78123, docs)
        with self.assertRaises(omendb.Exists):
            docs.add(self.rows[0], 77)

    def test_one_search_gives_short_arrays_and_many_give_padded_ones(self):
        docs = self.filled()
        ids, distances = docs.search(self.rows[7], k=5, exact=True)
        np.testing.assert_array_equal(ids, exact(self.rows, self.rows[7], 5))
        self.assertEqual((distances.dtype, float(distances[0])), (np.float32, 0.0))
        ids, distances = docs.search(self.rows[:20], k=600, exact=True)
        self.assertEqual(ids.shape, (20, 600))
        self.assertTrue((ids[:, 500:] == omendb.AUTO).all())
        self.assertTrue(np.isinf(distances[:, 500:]).all())
        self.assertEqual(docs.search(self.rows[0], k=600)[0].shape, (500,))
        self.assertEqual(docs.search(self.rows[0], radius=1e-6)[0].tolist(), [0])
        self.assertEqual(docs.search(np.zeros((0, 16)), k=3)[0].shape, (0, 3))

    def test_the_graph_finds_what_is_there(self):
        docs = self.filled()
        self.db.optimize()
        found, _ = docs.search(self.rows, k=10, ef=200)
        wanted, _ = docs.search(self.rows, k=10, exact=True)
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, wanted))
        self.assertGreater(hits / wanted.size, 0.97)
        self.assertGreater(docs.explain(self.rows[0])["distances"], 0)
        explain = docs.explain(self.rows[0], recall=0.9)
        self.assertTrue(0.9 <= explain["recall"] <= 1 and explain["warnings"] == 0, explain)
        with self.assertRaises(omendb.Invalid):
            docs.search(self.rows[0], recall=2.0)
        with self.assertRaises(omendb.Invalid):
            docs.calibrate(self.rows[:49])

    def test_like_a_stored_record(self):
        docs = self.filled()
        ids, _ = docs.search_like(3, k=4, exact=True)
        np.testing.assert_array_equal(ids, exact(self.rows, self.rows[3], 5)[1:])
        with self.assertRaises(omendb.NotFound):
            docs.search_like(12345)

    def test_stretch_is_a_way_to_search(self):
        rows = RNG.standard_normal((3000, 24), dtype=np.float32)
        docs = self.db.collection("wide", dim=24)
        docs.add(rows)
        self.db.optimize()
        efforts = [docs.explain(rows[3], stretch=stretch, ef=ef)["distances"]
                   for stretch, ef in ((1, 0), (1.2, 0), (3, 2000))]
        self.assertEqual(efforts, sorted(set(efforts)))
        self.assertEqual(docs.search(rows[3], k=1, stretch=1.3)[0].tolist(), [3])
        self.assertEqual(docs.search(rows[:5], k=1, stretch=1.3)[0].ravel().tolist(), [0, 1, 2, 3, 4])
        self.assertNotIn(3, docs.search_like(3, stretch=1.3)[0])
        for call in (docs.search, docs.explain):
            with self.assertRaises(omendb.Invalid):
                call(rows[3], stretch=0.5)
            with self.assertRaises(omendb.Invalid):
                call(rows[3], stretch=1.1, recall=0.9)
        with self.assertRaises(omendb.Invalid):
            docs.search_like(3, stretch=0.5)

    def test_every_search_takes_a_timeout(self):
        docs = self.db.collection("many", dim=4)
        docs.add(RNG.standard_normal((400_000, 4), dtype=np.float32))
        one, many = np.zeros(4), np.zeros((64, 4))
        for call, asked in (
            (docs.search, one), (docs.search, many), (docs.explain, one), (docs.search_like, 5),
        ):
            with self.assertRaises(omendb.Timeout) as caught:
                call(asked, exact=True, timeout=1e-6)
            self.assertIsInstance(caught.exception, TimeoutError)
            for enough in (600, 1e300, float("inf"), None):
                call(asked, exact=True, timeout=enough)
            for wrong in (-1, float("nan")):
                with self.assertRaises(ValueError):
                    call(asked, timeout=wrong)

    def test_every_code_has_a_class(self):
        self.assertEqual(set(omendb._ERRORS), set(range(1, 22)) - {omendb._DONE})
        for code, error in omendb._ERRORS.items():
            self.assertIn(error.__name__, omendb.__all__)
            with self.assertRaises(omendb.Error) as caught:
                omendb._check(code)
            self.assertIs(type(caught.exception), error)
            self.assertEqual(caught.exception.code, code)
        for name in omendb.__all__:
            self.assertTrue(hasattr(omendb, name), name)

    def test_a_dropped_collection_has_a_class(self):
        docs = self.filled()
        self.db.drop("docs")
        with self.assertRaises(omendb.Dropped):
            docs.count()

    def test_every_type_of_array_is_taken(self):
        docs = self.db.collection("docs", dim=4)
        for i, dtype in enumerate(("f4", "f2", "f8", "i1", "u1", "i8", "u4", "?", ">f4")):
            docs.add(np.array([0, 1, 1, 0], dtype), i)
            np.testing.assert_array_equal(docs.get(i), [0, 1, 1, 0])
        docs.add([1, 2, 3, 4], 100)
        docs.add(np.arange(80.0).reshape(4, 20).T[:, :4], range(200, 220))
        np.testing.assert_array_equal(docs.get(203), [3, 23, 43, 63])

    def test_types_of_storage(self):
        vector = np.array([0.5, -0.25, 0.125, 1], np.float32)
        for scalar in ("f32", "f16", "bf16", "i8"):
            docs = self.db.collection(scalar, dim=4, type=scalar, scale=100 if scalar == "i8" else 0)
            docs.add(vector, 1)
            np.testing.assert_allclose(docs.get(1), vector, atol=0.006)
        np.testing.assert_array_equal(docs.get(1, stored=True), np.array([50, -25, 12, 100], "i1"))
        bits = self.db.collection("bits", dim=12, type="b1", metric="hamming")
        flags = np.arange(12) % 3 == 0
        bits.add(flags, 1)
        bits.add(np.packbits(flags, bitorder="little"), 2)
        np.testing.assert_array_equal(bits.get([1, 2]), [flags, flags])
        self.assertEqual(bits.search(~flags)[1].tolist(), [12, 12])

    def test_putting_deleting_scanning(self):
        docs = self.filled()
        docs.put(np.ones((2, 16)), [3, 1000])
        self.assertEqual(docs.delete([3, 4, 5, 5000]), 3)
        self.assertEqual(docs.delete([]), 0)
        self.assertEqual([i for i, _ in docs.scan(0, 7)], [0, 1, 2, 6, 7])
        for i, vector in docs.scan(10, 12):
            np.testing.assert_array_equal(vector, self.rows[i])
        self.assertEqual(sum(1 for _ in docs), 498)

    def test_a_snapshot_stays_as_it_was(self):
        docs = self.filled()
        with self.db.snapshot() as before:
            docs.delete(range(400))
            docs.add(np.zeros(16), 9999)
            self.assertEqual((docs.count(), docs.count(txn=before)), (101, 500))
            ids, _ = docs.search(self.rows[5], k=1, txn=before)
            self.assertEqual(ids.tolist(), [5])
            with self.assertRaises(omendb.ReadOnly):
                docs.add(np.zeros(16), txn=before)

    def test_a_transaction_commits_or_rolls_back(self):
        docs = self.filled()
        with self.db.transaction() as txn:
            docs.add(np.ones(16), 1000, txn=txn)
            docs.delete(0, txn=txn)
            self.assertEqual(docs.count(), 500)
        self.assertIn(1000, docs)
        self.assertNotIn(0, docs)
        with self.assertRaises(RuntimeError):
            with self.db.transaction() as txn:
                docs.delete(1, txn=txn)
                raise RuntimeError
        self.assertIn(1, docs)

    def test_the_structures_are_those_of_the_header(self):
        structures = {
            "omendb_options": omendb._Options, "omendb_schema": omendb._Schema,
            "omendb_explain": omendb._Explain, "omendb_query": omendb._Query,
            "omendb_record": omendb._Record, "omendb_stats": omendb._Stats,
            "omendb_collection_stats": omendb._CollectionStats,
            "omendb_salvage_result": omendb._SalvageResult, "omendb_facet": omendb._Facet,
            "omendb_limits": omendb._Limits, "omendb_field": omendb._Field,
        }
        header = re.sub(r"/\*.*?\*/", "", (ROOT / "omendb.h").read_text(), flags=re.DOTALL)
        for name, structure in structures.items():
            body = re.search(rf"typedef struct {name} {{(.*?)}} {name};", header, re.DOTALL)[1]
            fields = re.findall(r"(?:\(\*(\w+)\)\([^;]*\)|(\w+));", body)
            self.assertEqual(
                [a or b for a, b in fields], [field for field, _ in structure._fields_], name)

    def test_many_collections_are_created_at_once(self):
        names = [f"user {i:03}" for i in range(200)]
        commits = self.db.stats()["commits"]
        self.db.create_collections(names, dim=16, metric="cosine")
        self.assertEqual(self.db.stats()["commits"], commits + 1)
        self.assertEqual(self.db.collections(), names)
        self.assertEqual(self.db.collection("user 007").metric, "cosine")
        with self.assertRaises(omendb.Exists):
            self.db.create_collections(["new", "user 003"], dim=16)
        with self.assertRaises(TypeError):
            self.db.create_collections("new", dim=16)
        self.assertEqual(len(self.db.collections()), 200)

    def test_records_have_keys(self):
        docs = self.db.collection("docs", dim=16)
        self.assertEqual(docs.add(self.rows[0], key="größe"), 0)
        self.assertEqual(docs.add(self.rows[1:4], key=["b", None, "d"]).tolist(), [1, 2, 3])
        self.assertEqual([docs.get_key(i) for i in range(4)], ["größe", "b", None, "d"])
        self.assertEqual(docs.find("d"), 3)
        self.assertTrue("b" in docs and "c" not in docs)
        self.assertEqual(docs.put(self.rows[9], key="b"), 1)
        np.testing.assert_array_equal(docs.get(1), self.rows[9])
        ids, _ = docs.search_like("b", k=3)
        self.assertEqual(ids.tolist(), docs.search_like(1, k=3)[0].tolist())
        with self.assertRaises(omendb.Exists):
            docs.add(self.rows[0], key="d")
        docs.delete_key("d")
        for call in (docs.find, docs.delete_key, docs.search_like):
            with self.assertRaises(omendb.NotFound):
                call("d")
        with self.assertRaises(omendb.NotFound):
            docs.get_key(3)
        for wrong in ("", "a\0b", "x" * 1025):
            with self.assertRaises((ValueError, omendb.TooBig)):
                docs.add(self.rows[0], key=wrong)
        for wrong in ("ab", ["a"], 3):
            with self.assertRaises((TypeError, ValueError)):
                docs.add(self.rows[:2], key=wrong)
        self.assertEqual(len(docs), 3)

    def test_records_have_metadata(self):
        docs = self.db.collection("docs", dim=16)
        whole = {"tags": ["x", "ü"], "year": 2024, "share": 0.25, "draft": False, "note": None}
        docs.add(self.rows[0], metadata=whole)
        docs.add(self.rows[1:3], metadata=['{"year": 1999}', None])
        self.assertEqual(docs.get_metadata(0), whole)
        self.assertEqual(docs.get_metadata(0, ["year", "tags", "other"]), {
            "year": 2024, "tags": ["x", "ü"]})
        self.assertEqual((docs.get_metadata(1), docs.get_metadata(2)), ({"year": 1999}, {}))
        self.assertEqual(docs.get_metadata(0, []), {})
        docs.update(0, {"year": 2025, "note": None, "by": "me"})
        del whole["note"]
        self.assertEqual(docs.get_metadata(0), {**whole, "year": 2025, "by": "me"})
        long = {"text": "a" * 100_000}
        docs.put(self.rows[1], 1, metadata=long)
        self.assertEqual(docs.get_metadata(1), long)
        docs.put(self.rows[1], 1)
        self.assertEqual(docs.get_metadata(1), {})
        with self.db.snapshot() as before:
            docs.update(1, {"a": 1})
            self.assertEqual(docs.get_metadata(1, txn=before), {})
        with self.assertRaisesRegex(omendb.Invalid, "byte"):
            docs.add(self.rows[0], metadata='{"a": }')
        for wrong in ({"a": {"b": 1}}, {"a": float("nan")}, [1], 3):
            with self.assertRaises((omendb.Invalid, TypeError)):
                docs.add(self.rows[0], metadata=wrong)
        with self.assertRaises(omendb.NotFound):
            docs.update(99, {"a": 1})
        with self.assertRaises(TypeError):
            docs.get_metadata(0, "year")
        self.assertEqual(len(docs), 3)

    def test_keys_stand_for_ids(self):
        docs = self.db.collection("docs", dim=16)
        docs.add(self.rows[:5], key=["a", "b", None, "d", "e"], metadata=[{"i": i} for i in range(5)])
        np.testing.assert_array_equal(docs.get("b"), self.rows[1])
        np.testing.assert_array_equal(docs.get(["d", 2, "a"]), self.rows[[3, 2, 0]])
        self.assertEqual(docs.get("a", stored=True).shape, (16,))
        docs.update("b", {"i": None, "new": True})
        self.assertEqual(docs.get_metadata("b"), {"new": True})
        self.assertEqual(docs.get_metadata("d", ["i", "none"]), {"i": 3})
        with self.db.snapshot() as before:
            self.assertEqual(docs.delete("b"), 1)
            self.assertEqual(docs.delete(["none", "d", 0, 99]), 2)
            self.assertEqual(docs.delete("d"), 0)
            np.testing.assert_array_equal(docs.get(["b", "d"], txn=before), self.rows[[1, 3]])
            with self.assertRaises(omendb.ReadOnly):
                docs.update("e", {}, txn=before)
        for call in (docs.get, docs.get_metadata, lambda key: docs.update(key, {})):
            with self.assertRaises(omendb.NotFound):
                call("d")
        with self.assertRaises(omendb.NotFound):
            docs.get([2, "d"])
        with self.db.transaction() as txn:
            docs.update("e", {"i": 5}, txn=txn)
            self.assertEqual(docs.delete({"e"}, txn=txn), 1)
            txn.rollback()
        self.assertEqual((docs.get_metadata("e"), len(docs)), ({"i": 4}, 2))
        self.assertEqual(self.db.stats()["open_transactions"], 0)

    def test_values_of_numpy_are_plain_ones(self):
        docs = self.db.collection("docs", dim=16)
        docs.add(self.rows[0], metadata={
            "i": np.int64(-5), "u": np.uint8(200), "f": np.float32(0.25), "d": np.float64(0.1),
            "b": np.bool_(True), "s": np.str_("ü"), "t": [np.str_("x")], "a": np.array(["y", "z"]),
            "tuple": ("p", "q")})
        self.assertEqual(docs.get_metadata(0), {
            "i": -5, "u": 200, "f": 0.25, "d": 0.1, "b": True, "s": "ü", "t": ["x"],
            "a": ["y", "z"], "tuple": ["p", "q"]})
        self.assertIs(docs.get_metadata(0)["b"], True)
        docs.update(0, {"i": np.float16(0.5), "b": np.bool_(False)})
        self.assertEqual(docs.get_metadata(0, ["i", "b"]), {"i": 0.5, "b": False})
        for wrong in (datetime.date(2024, 5, 17), np.datetime64("2024-05-17"), np.timedelta64(1, "s"),
                      {"x"}, b"x", [datetime.date(2024, 5, 17)], np.arange(3), 1j):
            with self.assertRaisesRegex(TypeError, "metadata field 'when': .* lists of texts"):
                docs.put(self.rows[0], 0, metadata={"ok": 1, "when": wrong})
            with self.assertRaisesRegex(TypeError, "field 'when'"):
                docs.update(0, {"when": wrong})
        for wrong in (float("nan"), np.float32("inf")):
            with self.assertRaisesRegex(omendb.Invalid, "metadata field 'x': .*(nan|inf)") as raised:
                docs.put(self.rows[0], 0, metadata={"x": wrong})
            self.assertEqual((raised.exception.code, raised.exception.name), (1, "invalid"))

    def test_records_are_dicts(self):
        docs = self.db.collection("docs", dim=16)
        ids = docs.add_records(
            {"vector": self.rows[i], "key": f"k{i}", "metadata": {"i": i}} for i in range(50))
        self.assertEqual(ids.tolist(), list(range(50)))
        ids = docs.put_records([
            {"vector": self.rows[60], "key": "k7"}, {"vector": self.rows[61], "metadata": '{"i": 50}'}])
        self.assertEqual(ids.tolist(), [7, 50])
        self.assertEqual((docs.get_metadata(7), docs.get_metadata(50)), ({}, {"i": 50}))
        docs.put_records([{"vector": list(self.rows[1]), "id": 70}])
        np.testing.assert_array_equal(docs.get([7, 50, 70]), self.rows[[60, 61, 1]])
        self.assertEqual(docs.add_records([]).tolist(), [])
        with self.db.transaction() as txn:
            docs.put_records([{"vector": self.rows[0], "id": 80}], txn=txn)
            txn.rollback()
        for wrong in ([{"id": 3}], [{"vector": self.rows[0], "name": 3}],
                      [{"vector": self.rows[0]}, {"vector": self.rows[0], "id": 3}]):
            with self.assertRaises(ValueError):
                docs.put_records(wrong)
        self.assertEqual(len(docs), 52)

    def fielded(self):
        docs = self.db.collection("docs", dim=16)
        docs.add(self.rows, key=[f"k{i}" for i in range(500)], metadata=[
            {"i": i, "even": i % 2 == 0, "half": i / 2, "tag": ["all", f"t{i % 5}"]}
            for i in range(500)])
        return docs

    def test_a_filter_says_what_is_found_counted_scanned_and_deleted(self):
        docs = self.fielded()
        wanted = [i for i in exact(self.rows, self.rows[7], 500) if i % 5 == 2 and i < 200]
        for condition in ("tag = 't2' AND i < 200", {"tag": "t2", "i": {"$lt": 200}}):
            ids, _ = docs.search(self.rows[7], k=10, exact=True, filter=condition)
            self.assertEqual(ids.tolist(), wanted[:10])
            ids, _ = docs.search(self.rows[7:9], k=10, exact=True, filter=condition)
            self.assertEqual(ids[0].tolist(), wanted[:10])
            ids, _ = docs.search_like(7, k=10, exact=True, filter=condition)
            self.assertEqual(ids.tolist(), [i for i in wanted if i != 7][:10])
            self.assertEqual(docs.count(condition), 40)
            explain = docs.explain(self.rows[7], exact=True, filter=condition)
            self.assertAlmostEqual(explain["selectivity"], 40 / 500, places=6)
            self.assertNotEqual(explain["path"], 0)
        self.assertEqual(docs.count(), 500)
        self.assertEqual([i for i, _ in docs.scan(filter="i > 495")], [496, 497, 498, 499])
        self.assertEqual([i for i, _ in docs.scan(filter="_key = 'k9' OR _id = 3")], [3, 9])
        with self.db.transaction() as txn:
            self.assertEqual(docs.delete_where("even", txn=txn), 250)
            self.assertEqual((docs.count("even", txn=txn), docs.count("even")), (0, 250))
            txn.rollback()
        self.assertEqual(docs.delete_where("NOT even AND i < ?", [100]), 50)
        self.assertEqual(docs.count("NOT even"), 200)
        self.assertEqual(len(docs), 450)

    def test_groups_have_room_for_so_many(self):
        docs = self.fielded()
        order = exact(self.rows, self.rows[7], 500)
        wanted = [next(i for i in order if i // 10 == group) for group in {i // 10 for i in order}]
        docs.put(self.rows, range(500), metadata=[{"doc": i // 10} for i in range(500)])
        ids, distances = docs.search(self.rows[7], k=60, exact=True, group_by="doc")
        self.assertEqual(sorted(ids.tolist()), sorted(wanted))
        self.assertEqual(distances.tolist(), sorted(distances.tolist()))
        ids, _ = docs.search(self.rows[7], k=500, exact=True, group_by="doc", group_size=3)
        self.assertEqual(np.bincount(ids.astype(int) // 10).tolist(), [3] * 50)
        ids, _ = docs.search(self.rows[:4], k=50, exact=True, group_by="doc", filter="doc < 20")
        self.assertEqual([len(set(row[row < 500] // 10)) for row in ids], [20] * 4)
        self.assertNotIn(7, docs.search_like(7, k=50, group_by="doc")[0])
        self.assertGreater(docs.explain(self.rows[7], k=50, group_by="doc")["distances"], 0)
        for wrong in ({"group_by": ""}, {"group_size": 2}):
            with self.assertRaises(omendb.Invalid):
                docs.search(self.rows[7], **wrong)

    def test_examples_say_what_hits_are_like(self):
        docs = self.fielded()
        mean = self.rows[[3, 4]].astype(np.float64).mean(axis=0)
        ids, _ = docs.search(like=[3, "k4"], k=5, exact=True)
        self.assertEqual(ids.tolist(), [i for i in exact(self.rows, mean, 7) if i not in (3, 4)][:5])
        away = 2 * mean - self.rows[9]
        ids, _ = docs.search(like=np.array([3, 4]), unlike="k9", k=5, exact=True)
        self.assertEqual(
            ids.tolist(), [i for i in exact(self.rows, away, 8) if i not in (3, 4, 9)][:5])
        self.assertEqual(docs.search(like=7, k=3)[0].tolist(), docs.search_like(7, k=3)[0].tolist())
        self.assertGreater(docs.explain(like=[3, 4])["distances"], 0)
        for error, wrong in (
                (ValueError, {}), (ValueError, {"unlike": [3]}), (omendb.NotFound, {"like": [3, 500]}),
                (omendb.NotFound, {"like": ["none"]}), (ValueError, {"like": [-1]}),
                (omendb.Invalid, {"like": []}),
                (ValueError, {"vectors": self.rows[0], "like": [3]}),
                (ValueError, {"vectors": self.rows[:2], "like": [3]})):
            with self.assertRaises(error):
                docs.search(**wrong)

    def test_many_different_queries_are_answered_in_one_call(self):
        docs = self.fielded()
        asked = [{"vector": self.rows[i], "k": 1 + i % 7, "exact": True, "filter": "i >= ?",
                  "parameters": [i]} for i in range(50)]
        asked += [{"record": "k3", "k": 20}, {"like": [3, 4], "unlike": [5]}]
        answers = docs.search_many(asked)
        for i, (ids, distances) in enumerate(answers[:50]):
            wanted = [j for j in exact(self.rows, self.rows[i], 500) if j >= i][:1 + i % 7]
            self.assertEqual((ids.tolist(), len(distances)), (wanted, len(wanted)))
        self.assertEqual(answers[50][0].tolist(), docs.search_like("k3", k=20)[0].tolist())
        self.assertEqual(answers[51][0].tolist(), docs.search(like=[3, 4], unlike=[5])[0].tolist())
        self.assertEqual(docs.search_many([]), [])
        with self.assertRaisesRegex(omendb.Invalid, "1"):
            docs.search_many([asked[0], {"vector": self.rows[0], "k": 0}])
        for error, wrong in ((TypeError, {"vector": self.rows[0], "what": 1}), (ValueError, {"k": 3}),
                             (omendb.Invalid, {"vector": self.rows[0], "filter": "i >"})):
            with self.assertRaises(error):
                docs.search_many([asked[0], wrong])

    def test_pages_give_all_hits_once_as_they_were(self):
        docs = self.fielded()
        pages = docs.pages(self.rows[7], k=30, exact=True, filter="even")
        docs.delete(range(0, 400))
        found = [ids for ids, _ in pages]
        self.assertEqual([len(ids) for ids in found], [30] * 8 + [10])
        wanted = [i for i in exact(self.rows, self.rows[7], 500) if i % 2 == 0]
        self.assertEqual(np.concatenate(found).tolist(), wanted)
        self.assertEqual(self.db.stats()["open_cursors"], 0)
        started = docs.pages(like=[450])
        next(started)
        docs.pages(self.rows[0])
        with self.assertRaises(omendb.Invalid):
            docs.pages(self.rows[0], k=0)
        with self.assertRaises(omendb.Timeout):
            next(self.slow_pages())
        self.db.close()
        with self.assertRaises(ValueError):
            next(started)

    def slow_pages(self):
        many = self.db.collection("many", dim=4)
        many.add(RNG.standard_normal((400_000, 4), dtype=np.float32))
        return many.pages(np.zeros(4), exact=True, timeout=1e-6)

    def test_facets_count_values_under_a_filter(self):
        docs = self.fielded()
        facets = docs.facets("tag", "i < ?", [7])
        self.assertEqual(facets.values, [("all", 7), ("t0", 2), ("t1", 2), ("t2", 1), ("t3", 1), ("t4", 1)])
        self.assertEqual((facets.records, facets.nulls, facets.distinct), (7, 0, 6))
        facets = docs.facets("tag", limit=2)
        self.assertEqual((facets.values, facets.distinct), ([("all", 500), ("t0", 100)], 6))
        values = [True, False, 5, 5.5, "fünf", None]
        docs.put(self.rows[:6], range(6), metadata=[{"v": value} for value in values])
        facets = docs.facets("v")
        self.assertEqual([value for value, _ in facets.values], [False, True, 5, 5.5, "fünf"])
        self.assertEqual([type(value) for value, _ in facets.values], [bool, bool, int, float, str])
        self.assertEqual((facets.records, facets.nulls), (500, 495))
        for error, wrong in ((omendb.Invalid, "_id"), (TypeError, 3), (ValueError, "a\0b")):
            with self.assertRaises(error):
                docs.facets(wrong)
        with self.assertRaises(ValueError):
            docs.facets("v", limit=-1)

    def test_limits_are_kept(self):
        docs = self.db.collection("docs", dim=16)
        none = {"records": 0, "bytes": 0, "queries_per_second": 0, "writes_per_second": 0}
        self.assertEqual(docs.limits(), none)
        docs.set_limits(records=3, bytes=1000, queries_per_second=2)
        self.assertEqual(
            docs.limits(), {**none, "records": 3, "bytes": 1000, "queries_per_second": 2})
        docs.add(self.rows[:3])
        with self.assertRaisesRegex(omendb.Quota, "records"):
            docs.add(self.rows[3])
        with self.assertRaises(omendb.Quota):
            docs.put(self.rows[0], 0, metadata={"text": "a" * 1000})
        with self.assertRaisesRegex(omendb.Quota, "ms"):
            docs.search(self.rows[:2])
            docs.search(self.rows[0])
        stats = docs.stats()
        self.assertEqual((stats["bytes"], stats["queries_refused"] > 0), (3 * (8 + 64), True))
        docs.set_limits()
        self.assertEqual(docs.limits(), none)
        docs.add(self.rows[3])
        for wrong in ({"records": -1}, {"bytes": 2**64}):
            with self.assertRaises(ValueError):
                docs.set_limits(**wrong)

    def test_what_is_declared_must_be_so(self):
        docs = self.db.collection("docs", dim=16)
        self.assertEqual(docs.declaration(), ({}, [], False))
        fields = {"year": "i64", "größe": "f64", "draft": "bool", "lang": "text", "tags": "texts", "x": "any"}
        docs.declare(fields, required=["year"], strict=True)
        self.assertEqual(docs.declaration(), (fields, ["year"], True))
        docs.add(self.rows[0], metadata={"year": 2024, "tags": ["a"], "x": 1})
        for wrong in ({}, {"year": "2024"}, {"year": 2024, "other": 1}, {"year": 1.5}):
            with self.assertRaises(omendb.Invalid):
                docs.add(self.rows[1], metadata=wrong)
        docs.declare(*docs.declaration()._replace(strict=False))
        docs.add(self.rows[1], metadata={"year": 2024, "other": 1})
        docs.declare({})
        docs.add(self.rows[2])
        self.assertEqual(docs.declaration(), ({}, [], False))
        for wrong in (({"a": "int"},), ({"a": "i64"}, ["b"])):
            with self.assertRaises(ValueError):
                docs.declare(*wrong)

    def test_a_scan_gives_keys_and_metadata_on_request(self):
        docs = self.fielded()
        docs.put(self.rows[0], 1)
        for i, vector, key, fields in docs.scan(0, 9, key=True, metadata=["i", "half"]):
            np.testing.assert_array_equal(vector, self.rows[0 if i == 1 else i])
            self.assertEqual(key, None if i == 1 else f"k{i}")
            self.assertEqual(fields, {} if i == 1 else {"i": i, "half": i / 2})
        (i, _, fields), = docs.scan(filter="i = 6", metadata=True)
        self.assertEqual((i, fields), (6, docs.get_metadata(6)))
        rows = docs.scan(key=True)
        next(rows)
        docs.delete(range(500))
        self.assertEqual([key for _, _, key in rows][-1], "k499")
        self.assertEqual(self.db.stats()["open_transactions"], 0)

    def test_parameters_have_the_type_of_the_value(self):
        docs = self.db.collection("docs", dim=16)
        values = [True, 5, 5.5, "five", None, ["five", "six"]]
        docs.add(self.rows[:6], metadata=[{"v": value} for value in values])
        for value, wanted in zip(values[:4], ([0], [1], [2], [3, 5])):
            self.assertEqual([i for i, _ in docs.scan(filter="v IS ?", parameters=[value])], wanted)
            self.assertEqual(docs.count("v IS :v", {"v": value}), len(wanted))
        self.assertEqual(docs.count("v IS ?", [None]), 1)
        self.assertEqual(docs.count("v IN ?", [["six", "x"]]), 1)
        self.assertEqual(docs.count("v IN ?", [()]), 0)
        self.assertEqual(docs.count("v = ? OR v = ?", (np.int64(5), np.float32(5.5))), 2)
        self.assertEqual(docs.count("v = ?", [np.True_]), 1)
        self.assertEqual(docs.count("_id < ?", [2**63]), 6)
        self.assertEqual(docs.count({"v": {"$gt": {"$param": "least"}}}, {":least": 5}), 3)
        for filter, parameters, error in (
            ("v = ?", [1, 2], ValueError), ("v = :a", {"b": 1}, ValueError),
            ("v = :a OR v = :b", {"b": 1}, ValueError), ("v = ?", None, ValueError),
            ("v = 1", [1], ValueError), ("v = ?2", [1], ValueError),
            ("v = ?", "5", TypeError), ("v = ?", [[1]], TypeError), ("v = ?", [["a"]], omendb.Invalid),
            ("v = ?", [float("nan")], omendb.Invalid), (None, [1], ValueError),
        ):
            with self.assertRaises(error):
                docs.count(filter, parameters)
        with self.assertRaisesRegex(ValueError, "the filter has 2 parameters, 1 given"):
            docs.search(self.rows[0], filter="v = ? OR v = ?", parameters=[1])
        with self.assertRaisesRegex(omendb.Invalid, "byte 4: .*\n.*\n *\\^"):
            docs.search(self.rows[0], filter="v < ")
        with self.assertRaises(TypeError):
            docs.delete_where(None)
        self.db.collection("docs")

    def test_filters_go_with_their_database(self):
        docs = self.fielded()
        rows = docs.scan(filter="even", metadata=True)
        next(rows)
        self.db.close()
        with self.assertRaises(ValueError):
            next(rows)
        with self.assertRaises(ValueError):
            docs.count("even")

    def test_errors_have_kind_code_and_sentence(self):
        docs = self.filled()
        with self.assertRaises(omendb.Invalid) as caught:
            docs.add(np.full(16, np.nan))
        self.assertEqual((caught.exception.code, caught.exception.name), (1, "invalid"))
        self.assertIn("NaN", str(caught.exception))
        self.assertIsInstance(caught.exception, ValueError)
        with self.assertRaises(omendb.NotFound):
            docs.get(12345)
        with self.assertRaises(omendb.NotFound):
            self.db.collection("nothing")
        with self.assertRaises(omendb.Invalid):
            docs.search(self.rows[0], k=0)
        with self.assertRaises(omendb.Mismatch):
            self.db.collection("docs", dim=17)
        with self.assertRaises(omendb.Mismatch):
            self.db.collection("docs", dim=16, metric="cosine")
        for wrong in (np.zeros(15), np.zeros((2, 2, 16)), np.zeros((16, 1)), 3.0):
            with self.assertRaises(ValueError):
                docs.search(wrong)
        for wrong in (-1, 2**64 - 1, 2**70):
            with self.assertRaises((ValueError, OverflowError)):
                docs.search_like(wrong)
        with self.assertRaises(ValueError):
            docs.delete([0.5])
        with self.assertRaises(ValueError):
            docs.add(self.rows[:2], [1])
        with self.assertRaises(ValueError):
            self.db.collection("new", dim=3, metric="l3")

    def test_closed_handles_are_refused(self):
        docs = self.filled()
        docs.close()
        docs.close()
        self.assertTrue(docs.closed)
        with self.assertRaises(ValueError):
            docs.count()
        docs = self.db.collection("docs")
        rows = docs.scan()
        next(rows)
        snapshot = self.db.snapshot()
        self.db.close()
        self.db.close()
        for call in (docs.count, self.db.stats, lambda: next(rows), snapshot.commit):
            with self.assertRaises(ValueError):
                call()
        self.assertIn("closed", repr(docs))

    def test_the_error_names_what_is_closed(self):
        docs = self.filled()
        cursor = omendb._Rows(docs, 0, 9, None, omendb._Filter(self.db, None, None))
        snapshot = self.db.snapshot()
        self.db.close()
        for call, what in ((lambda: cursor._pointer, "scan"), (docs.count, "collection"),
                           (snapshot.commit, "transaction"), (self.db.stats, "database")):
            with self.assertRaisesRegex(ValueError, f"^the {what} is closed$"):
                call()

    def test_forgotten_handles_close_themselves(self):
        for _ in range(20):
            db = omendb.open(":memory:")
            docs = db.collection("docs", dim=16)
            docs.add(self.rows)
            next(docs.scan())
            db.cycle = [docs, db.snapshot(), db]
        del db, docs
        gc.collect()

    def test_progress_is_called_and_may_raise(self):
        docs = self.filled()
        self.db.optimize(lambda done, total: None)
        docs.add(self.rows, range(1000, 1500))

        def stop(done, total):
            raise KeyboardInterrupt

        try:
            self.db.optimize(stop)
        except KeyboardInterrupt:
            pass
        self.assertEqual(len(docs), 1000)

    def test_threads_search_while_one_adds(self):
        docs = self.filled()
        failures = []

        def search():
            try:
                for row in self.rows[:100]:
                    ids, _ = docs.search(row, k=5)
                    assert len(ids) == 5
            except Exception as error:  # of another thread: told below
                failures.append(error)

        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        for start in range(1000, 2000, 100):
            docs.add(self.rows[:100], range(start, start + 100))
        for thread in threads:
            thread.join()
        self.assertEqual((failures, len(docs)), ([], 1500))


class OnDisk(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(dir=os.environ.get("OMENDB_TEST_DIRECTORY"))
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / "notes.omen"

    def test_records_survive_and_readers_see_them(self):
        rows = RNG.standard_normal((100, 8), dtype=np.float32)
        with omendb.open(self.path) as db:
            db.collection("docs", dim=8, metric="cosine").add(rows)
            self.assertEqual(db.collections(), ["docs"])
            self.assertEqual(db.stats()["records"], 100)
            self.assertEqual(db.check(), [])
            with self.assertRaises(omendb.Busy):
                omendb.open(self.path)
        with omendb.open(self.path, read_only=True, io="pread") as db:
            docs = db.collection("docs")
            self.assertEqual((docs.dim, docs.metric, docs.type, len(docs)), (8, "cosine", "f32", 100))
            np.testing.assert_array_equal(docs.get(np.arange(100)), rows)
            self.assertEqual(docs.stats()["records"], 100)
            db.refresh()
            with self.assertRaises(omendb.ReadOnly):
                docs.add(rows)

    def test_a_memory_limit_that_is_too_small_names_the_least(self):
        with self.assertRaisesRegex(omendb.Invalid, "1048576 bytes; it must be at least 8388608"):
            omendb.open(self.path, memory_limit=1 << 20)
        with omendb.open(self.path, memory_limit=8 << 20) as db:
            db.collection("docs", dim=8).add(RNG.standard_normal((300, 8)))
            self.assertLess(db.stats()["memory_peak_bytes"], 8 << 20)

    def test_upkeep(self):
        with omendb.open(self.path, sync="off", threads=0) as db:
            docs = db.collection("docs", dim=8)
            docs.add(RNG.standard_normal((300, 8)))
            while db.work():
                pass
            db.checkpoint()
            db.optimize()
            docs.delete([0, 1])
            db.purge("docs")
            db.purge()
            with self.assertRaises(omendb.NotFound):
                db.purge("letters")
            self.assertEqual(docs.stats()["rows"], 298)
            self.assertEqual((db.stats()["prepared_transactions"], db.stats()["held_bytes"]), (0, 0))
            db.backup(self.path.with_name("copy.omen"))
            db.drop("docs")
            self.assertNotIn("docs", db)
        with omendb.open(self.path.with_name("copy.omen"), must_exist=True) as db:
            self.assertEqual(len(db.collection("docs")), 298)

    def test_what_is_prepared_waits_for_its_outcome(self):
        with omendb.open(self.path) as db:
            docs = db.collection("docs", dim=8)
            for name, record in (("kept", 1), ("dropped", 2)):
                txn = db.transaction()
                docs.add(np.ones(8), record, txn=txn)
                with self.assertRaises(omendb.Invalid):
                    txn.prepare("")
                txn.prepare(name)
                self.assertTrue(txn.closed)
            with db.transaction() as txn:
                with self.assertRaises(omendb.Busy):
                    docs.add(np.ones(8), 1, txn=txn)
                    txn.prepare("third")
                txn.rollback()
        with omendb.open(self.path) as db:
            docs = db.collection("docs")
            self.assertEqual(db.prepared(), [("dropped", "waiting"), ("kept", "waiting")])
            self.assertEqual((db.stats()["prepared_transactions"], len(docs)), (2, 0))
            db.commit_prepared("kept")
            db.rollback_prepared("dropped")
            self.assertEqual(db.prepared(), [("dropped", "rolled back"), ("kept", "committed")])
            self.assertEqual([record for record, _ in docs], [1])
            with self.assertRaises(omendb.Conflict):
                db.rollback_prepared("kept")
            for name in ("kept", "dropped"):
                db.forget_prepared(name)
            with self.assertRaises(omendb.NotFound):
                db.forget_prepared("kept")
            self.assertEqual((db.prepared(), db.stats()["prepared_transactions"]), ([], 0))

    def test_what_readers_hold_is_told(self):
        with omendb.open(self.path, threads=0) as db:
            docs = db.collection("docs", dim=8)
            docs.add(RNG.standard_normal((300, 8)))
            db.checkpoint()
            held = sum(path.stat().st_size for path in self.path.glob("seg-*"))
            code = "import sys, omendb; db = omendb.open(sys.argv[1], read_only=True); print(1, flush=True); sys.stdin.read()"
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "examples" / "python")}
            with subprocess.Popen(
                    [sys.executable, "-B", "-c", code, str(self.path)], env=environment,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
                reader.stdout.readline()
                docs.put(RNG.standard_normal((300, 8)), np.arange(300))
                db.optimize()
                while db.work():
                    pass
                self.assertGreaterEqual(db.stats()["held_bytes"], held)
            docs.delete(0)
            db.checkpoint()
            self.assertEqual(db.stats()["held_bytes"], 0)

    def test_what_is_intact_is_salvaged(self):
        saved = self.path.with_name("saved.omen")
        with omendb.open(self.path) as db:
            db.collection("docs", dim=8).add(RNG.standard_normal((300, 8)))
            db.checkpoint()
            db.collection("docs").add(RNG.standard_normal((5, 8)))
            lost = self.path.with_name("lost.omen")
            shutil.copytree(self.path, lost)
        result, lines = omendb.salvage(self.path, saved)
        self.assertEqual((result["records"], result["lost_files"], lines), (305, 0, []))
        for segment in lost.glob("seg-*"):
            size = segment.stat().st_size
            segment.unlink()
        result, lines = omendb.salvage(lost, self.path.with_name("rest.omen"))
        self.assertEqual(
            (result["records"], result["lost_rows"], result["lost_files"], result["lost_bytes"]),
            (5, 0, 1, size))
        self.assertEqual(result["problems"], len(lines))
        with self.assertRaises(omendb.Exists):
            omendb.salvage(self.path, saved)

    def test_what_is_cut_off_the_log_is_told(self):
        copy, lines = self.path.with_name("copy.omen"), []
        with omendb.open(self.path) as db:
            docs = db.collection("docs", dim=8)
            docs.add(np.ones((2, 8)))
            docs.add(np.ones((1, 8)))
            shutil.copytree(self.path, copy)
        log = max(copy.glob("wal-*"))
        data = bytearray(log.read_bytes())
        data[len(data.rstrip(b"\0")) - 1] ^= 0xFF
        log.write_bytes(data)
        with omendb.open(copy, log=lambda code, line: lines.append((code, line))) as db:
            self.assertEqual(len(db.collection("docs")), 2)
        self.assertEqual(len(lines), 1, lines)
        self.assertIsInstance(lines[0][0], int)
        self.assertIn("was cut", lines[0][1])

    def test_no_database_has_a_class(self):
        self.path.write_text("letter")
        with self.assertRaises(omendb.Format):
            omendb.open(self.path)

    def test_what_is_not_there(self):
        with self.assertRaises(omendb.NotFound):
            omendb.open(self.path, must_exist=True)
        with self.assertRaises(ValueError):
            omendb.open("a\0b")


def main():
    suite = unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__])
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(suite)
    failed = len({test.id() for test, _ in result.failures + result.errors})
    print(f"{result.testsRun - failed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
