"""The libraries that bench/filters.py compares: how each builds, takes a condition and searches.

Each class has build(data, path), load(data, path), prepare(condition, mask), and one(query, prepared)
and many(queries, prepared), which return ids of K places a query or fewer. prepare() is not measured:
libraries without metadata are given a bitmap there, ready made, which favours them; the others a
text, which they parse and evaluate within the search.
"""

import ctypes
import json
import os
import pathlib
import shutil
import sys

import numpy as np

from filter_data import K
from peers import DEGREE, EF_CONSTRUCTION, STRETCHES

HERE = pathlib.Path(__file__).resolve().parent
EFFORTS = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 900, 1280, 2560, 5120)
EXACT = (0,)  # the one effort of a library that compares all


class Library:
    """`module` must be installed; `index` is the library whose index is searched."""

    module = None
    index = None
    efforts = EFFORTS
    how = "a bitmap, given"  # what a condition is

    def __init__(self, threads):
        self.threads = threads

    def set_effort(self, effort):
        self.effort = effort

    def prepare(self, condition, mask):
        return None if not condition else np.packbits(mask, bitorder="little")

    def many(self, queries, prepared):
        """None: there are no calls for several queries."""
        return None


# OmenDB


class OmenDB(Library):
    """Through its own Python module; filters are texts with parameters."""

    how = "filter text"
    efforts = tuple(stretch / 1000 for stretch in STRETCHES)

    def api(self):
        sys.path.insert(0, str(HERE.parent / "examples" / "python"))
        import omendb

        return omendb

    def build(self, data, path):
        base = data.base()
        with self.api().open(path, threads=self.threads, tail_limit=1 << 40) as database:
            rows = database.collection("rows", dim=data.dim, metric="l2" if data.is_l2 else "cosine",
                                       M=DEGREE, ef_construction=EF_CONSTRUCTION)
            for first in range(0, data.rows, 10000):
                last = min(first + 10000, data.rows)
                rows.add(base[first:last], ids=np.arange(first, last),
                         metadata=[json.dumps(record) for record in records(data, first, last)])
            database.optimize()
            if data.calibration is not None:
                rows.calibrate(data.calibration)

    def load(self, data, path):
        self.database = self.api().open(path, threads=0, must_exist=True)
        self.rows = self.database.collection("rows")
        self.set_effort(self.efforts[0])
        self.rows.search(data.queries, K, stretch=1.1)  # what is searched is copied into memory
        self.database.work()

    def set_effort(self, effort):
        self.options = {"stretch": effort}

    def prepare(self, condition, mask):
        words = {"=": "=", "<": "<", "has": "CONTAINS"}
        text = " AND ".join(f"{field} {words[operator]} ?" for field, operator, _ in condition)
        return {"filter": text, "parameters": [c[2] for c in condition]} if condition else {}

    def one(self, query, prepared):
        return self.rows.search(query, K, **self.options, **prepared)[0]

    def many(self, queries, prepared):
        return self.rows.search(queries, K, **self.options, **prepared)[0]


class OmenDBRecall(OmenDB):
    """Asked for a recall instead of an effort, which it keeps by measuring."""

    index = "OmenDB"
    efforts = (0.95,)

    def load(self, data, path):
        copy = path + "-copy"  # a database is open for writing once
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path, copy)
        super().load(data, copy)

    def set_effort(self, effort):
        self.options = {"recall": effort}


def records(data, first, last):
    """Yield the fields of rows as dicts."""
    for row in range(first, last):
        yield {name: column[row].item() if isinstance(column, np.ndarray) else column[row]
               for name, column in data.fields.items()}


# Libraries of vectors alone, under bitmaps


class Faiss(Library):
    module = "faiss"
    how = "IDSelectorBitmap, given"

    def __init__(self, threads):
        super().__init__(threads)
        import faiss

        self.faiss = faiss
        faiss.omp_set_num_threads(threads)

    def make(self, data, metric):
        index = self.faiss.IndexHNSWFlat(data.dim, DEGREE, metric)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        return index

    def build(self, data, path):
        base = data.base()
        metric = self.faiss.METRIC_L2 if data.is_l2 else self.faiss.METRIC_INNER_PRODUCT
        index = self.make(data, metric)
        if not index.is_trained:
            index.train(base)
        index.add(base)
        self.faiss.write_index(index, path)

    def load(self, data, path):
        self.searched = self.faiss.read_index(path)

    def prepare(self, condition, mask):
        if not condition:
            return None, None
        bits = np.packbits(mask, bitorder="little")
        return self.faiss.IDSelectorBitmap(len(mask), self.faiss.swig_ptr(bits)), bits

    def parameters(self, selector):
        return self.faiss.SearchParametersHNSW(sel=selector, efSearch=self.effort)

    def many(self, queries, prepared):
        return self.searched.search(queries, K, params=self.parameters(prepared[0]))[1]

    def one(self, query, prepared):
        return self.many(query[None], prepared)[0]


class FaissBytes(Faiss):
    """8-bit codes: the bytes themselves where the data are bytes, scaled ones elsewhere."""

    def make(self, data, metric):
        quantizer = self.faiss.ScalarQuantizer
        kind = quantizer.QT_8bit_direct if data.is_l2 else quantizer.QT_8bit
        index = self.faiss.IndexHNSWSQ(data.dim, kind, DEGREE, metric)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        return index


class FaissIvf(Faiss):
    """Lists, whose rows are tested before they are compared."""

    def make(self, data, metric):
        lists = int(4 * data.rows ** 0.5)
        return self.faiss.index_factory(data.dim, f"IVF{lists},Flat", metric)

    def load(self, data, path):
        super().load(data, path)
        self.efforts = tuple(effort for effort in (1, 2, 4, *EFFORTS) if effort < self.searched.nlist)
        self.efforts += (self.searched.nlist,)

    def parameters(self, selector):
        return self.faiss.SearchParametersIVF(sel=selector, nprobe=self.effort)


class FaissFlat(Faiss):
    """Compares all rows that match: what its documentation has for few of them."""

    efforts = EXACT

    def make(self, data, metric):
        return self.faiss.IndexFlat(data.dim, metric)

    def parameters(self, selector):
        return self.faiss.SearchParameters(sel=selector)


class Native(Library):
    """Libraries whose Python has no filter, or one that calls Python for each row: compiled."""

    how = "a functor over a bitmap, given"
    library = None

    def load(self, data, path):
        import usearch.index  # noqa: F401  the distances of USearch are in a library that it loads

        native = ctypes.CDLL(os.environ["FILTERS_NATIVE"])
        self.open_index = getattr(native, f"filters_{self.library}_load")
        self.open_index.restype = ctypes.c_void_p
        self.search = getattr(native, f"filters_{self.library}_search")
        self.dim = data.dim
        self.loaded = self.open_native(data, path.encode())
        if not self.loaded:
            raise RuntimeError(f"{path} cannot be loaded")

    def prepare(self, condition, mask):
        if not condition:
            return None
        bits = np.zeros((len(mask) + 63) // 64 * 8, np.uint8)
        packed = super().prepare(condition, mask)
        bits[:len(packed)] = packed
        return bits

    def many(self, queries, prepared):
        queries = self.convert(queries)
        ids = np.empty((len(queries), K), np.int64)
        if self.search(*self.arguments(), pointer(queries), ctypes.c_size_t(len(queries)),
                       pointer(prepared), pointer(ids)) != 0:
            raise RuntimeError("the search failed")
        return ids

    def one(self, query, prepared):
        return self.many(query[None], prepared)[0]

    def convert(self, queries):
        return np.ascontiguousarray(queries, np.float32)


def pointer(array):
    return ctypes.c_void_p(None if array is None else array.ctypes.data)


class Hnswlib(Native):
    module = library = "hnswlib"

    def build(self, data, path):
        import hnswlib

        index = hnswlib.Index("l2" if data.is_l2 else "ip", data.dim)
        index.init_index(data.rows, M=DEGREE, ef_construction=EF_CONSTRUCTION)
        index.add_items(data.base(), num_threads=self.threads)
        index.save_index(path)

    def open_native(self, data, path):
        return self.open_index(path, ctypes.c_size_t(data.dim), int(data.is_l2))

    def arguments(self):
        return ctypes.c_void_p(self.loaded), ctypes.c_size_t(self.effort)


class Usearch(Native):
    module = library = "usearch"
    scalar, is_bytes = "f32", 0

    def build(self, data, path):
        from usearch.index import Index

        index = Index(ndim=data.dim, metric="l2sq" if data.is_l2 else "cos", dtype=self.scalar,
                      connectivity=DEGREE, expansion_add=EF_CONSTRUCTION)
        index.add(np.arange(data.rows, dtype=np.uint64), self.convert(data.base()),
                  threads=self.threads)
        index.save(path)

    def open_native(self, data, path):
        return self.open_index(path)

    def arguments(self):
        return (ctypes.c_void_p(self.loaded), ctypes.c_size_t(self.dim), self.is_bytes,
                ctypes.c_size_t(self.effort))


class UsearchBytes(Usearch):
    """Bytes of SIFT are shifted by 128, which leaves L2 as it is."""

    scalar, is_bytes, sets = "i8", 1, ("sift",)

    def convert(self, queries):
        return (np.asarray(queries, np.float32) - 128).astype(np.int8)


# Databases


def sql(condition, has):
    """Return the condition as SQL; `has` says how a list is asked for a text."""
    def term(field, operator, value):
        text = f"'{value}'" if isinstance(value, str) else str(value)
        return has.format(field=field, value=text) if operator == "has" else f"{field} {operator} {text}"

    return " AND ".join(term(*part) for part in condition)


class Lance(Library):
    """Its graph over 8-bit codes, in one partition; an index of each field, conditions first."""

    module = "lancedb"
    how = "SQL, prefilter, indexes on the fields"

    def open(self, path):
        os.environ.setdefault("LANCE_LOG", "error")
        import lancedb

        return lancedb.connect(path)

    def build(self, data, path):
        database = self.open(path)
        import pyarrow
        from lancedb.index import Bitmap, BTree, HnswSq, LabelList

        base = pyarrow.array(data.base().reshape(-1))
        columns = {"id": pyarrow.array(np.arange(data.rows)),
                   "vector": pyarrow.FixedSizeListArray.from_arrays(base, data.dim)}
        columns.update((name, pyarrow.array(list(column))) for name, column in data.fields.items())
        table = database.create_table("rows", pyarrow.table(columns))
        table.create_index("vector", config=HnswSq(
            distance_type="l2" if data.is_l2 else "cosine", num_partitions=1, m=2 * DEGREE,
            ef_construction=EF_CONSTRUCTION))
        kinds = {"shuffled": BTree, "installed_size": BTree, "part": Bitmap, "section": Bitmap,
                 "tags": LabelList}
        for name in data.fields:
            table.create_index(name, config=kinds[name]())

    def load(self, data, path):
        self.table = self.open(path).open_table("rows")

    def prepare(self, condition, mask):
        return sql(condition, "array_has({field}, {value})")

    def query(self, vectors, prepared):
        asked = self.table.search(vectors).limit(K).nprobes(1).ef(self.effort)
        asked = asked.select(["id", "_distance"])
        return (asked.where(prepared, prefilter=True) if prepared else asked).to_arrow()

    def one(self, query, prepared):
        return self.query(query, prepared)["id"].to_numpy()

    def many(self, queries, prepared):
        found = self.query(queries, prepared)
        ids = found["id"].to_numpy()
        if len(queries) == 1:
            return [ids]
        numbers = found["query_index"].to_numpy()
        return [ids[numbers == number] for number in range(len(queries))]


class Zvec(Library):
    """Its graph, an inverted index of each field; found by its call for internal ids."""

    module = "zvec"
    how = "filter text, indexes on the fields"

    def __init__(self, threads):
        super().__init__(threads)
        import zvec

        self.zvec = zvec
        zvec.init(log_level=zvec.LogLevel.ERROR, query_threads=threads, optimize_threads=threads)

    def build(self, data, path):
        zvec, kinds = self.zvec, self.zvec.DataType
        types = {"section": kinds.STRING, "tags": kinds.ARRAY_STRING}
        fields = [zvec.FieldSchema(name, types.get(name, kinds.INT64), index_param=zvec.InvertIndexParam(
            enable_range_optimization=True)) for name in data.fields]
        graph = zvec.HnswIndexParam(
            metric_type=zvec.MetricType.L2 if data.is_l2 else zvec.MetricType.COSINE, m=DEGREE,
            ef_construction=EF_CONSTRUCTION)
        vector = zvec.VectorSchema("vector", kinds.VECTOR_FP32, data.dim, index_param=graph)
        made = zvec.create_and_open(path, zvec.CollectionSchema("rows", fields, vector))
        base = data.base()
        for first in range(0, data.rows, 1000):
            last = min(first + 1000, data.rows)
            made.insert([zvec.Doc(id=str(first + i), vectors={"vector": base[first + i]}, fields=record)
                         for i, record in enumerate(records(data, first, last))])
        made.optimize(zvec.OptimizeOption(concurrency=self.threads))
        made.flush()
        made.close()

    def load(self, data, path):
        zvec = self.zvec
        self.opened = zvec.open(path, zvec.CollectionOption(read_only=True, enable_mmap=True))
        names = self.opened.resolve_internal_ids(np.arange(data.rows))
        if None in names:
            raise RuntimeError("its internal ids are not the numbers of the rows")
        self.rows = np.append(np.array(names, np.int64), -1)  # the last is for no hit

    def prepare(self, condition, mask):
        return sql(condition, "{field} contain_any ({value})") or None

    def one(self, query, prepared):
        asked = self.zvec.Query("vector", vector=query, param=self.zvec.HnswQueryParam(ef=self.effort))
        return self.rows[self.opened.query_internal_ids(asked, topk=K, filter=prepared)]


class SqliteVec(Library):
    """Compares all: metadata columns, parts as its partitions, tags in a table beside it."""

    module = "sqlite_vec"
    how = "SQL, metadata columns, partitions"
    efforts = EXACT
    types = {"part": "integer partition key", "section": "text"}

    def open(self, path):
        import sqlite3

        import sqlite_vec

        database = sqlite3.connect(path)
        database.enable_load_extension(True)
        sqlite_vec.load(database)
        return database

    def build(self, data, path):
        database = self.open(path)
        names = [name for name in data.fields if name != "tags"]
        metric = "l2" if data.is_l2 else "cosine"
        fields = "".join(f", {name} {self.types.get(name, 'integer')}" for name in names)
        database.execute(f"create virtual table rows using vec0("
                         f"embedding float[{data.dim}] distance_metric={metric}{fields})")
        columns = [[value.item() if isinstance(value, np.integer) else value
                    for value in data.fields[name]] for name in names]
        places = ", ".join("?" * (2 + len(names)))
        database.executemany(
            f"insert into rows(rowid, embedding, {', '.join(names)}) values({places})",
            zip(range(data.rows), (row.tobytes() for row in data.base()), *columns))
        database.execute("create table tags(tag text, row integer, primary key(tag, row)) without rowid")
        database.executemany("insert or ignore into tags values(?, ?)", (
            (tag, row) for row, tags in enumerate(data.fields.get("tags", ())) for tag in tags))
        database.commit()

    def load(self, data, path):
        self.database = self.open(path)

    def prepare(self, condition, mask):
        text = sql(condition, "rowid in (select row from tags where tag = {value})")
        return (f"select rowid from rows where embedding match ? and k = {K}"
                + (" and " + text if text else ""))

    def one(self, query, prepared):
        return [row for row, in self.database.execute(prepared, (query.tobytes(),))]


class Upstream(Library):
    """The package omendb, whose product this design is named after. It does not look into lists:
    tags are one text, which it can be asked to contain a part of."""

    module = "omendb"
    how = "filter dict"

    def build(self, data, path):
        import omendb

        os.makedirs(path, exist_ok=True)
        base = data.base()
        field = {"dim": data.dim, "m": DEGREE, "ef_construction": EF_CONSTRUCTION,
                 "metric": "l2" if data.is_l2 else "cosine"}
        database = omendb.create(path + "/db", {"dense": field})
        for first in range(0, data.rows, 1000):
            last = min(first + 1000, data.rows)
            database.set(ids=[str(row) for row in range(first, last)], vectors=base[first:last],
                         metadatas=[self.joined(record) for record in records(data, first, last)])
        database.optimize()
        database.flush()
        database.close()

    def joined(self, record):
        return {name: "|".join(["", *value, ""]) if isinstance(value, list) else value
                for name, value in record.items()}

    def load(self, data, path):
        import omendb

        self.database = omendb.open(path + "/db")

    def prepare(self, condition, mask):
        def term(field, operator, value):
            names = {"<": "$lt", "=": "$eq", "has": "$contains"}
            return {field: {names[operator]: f"|{value}|" if operator == "has" else value}}

        terms = [term(*part) for part in condition]
        return None if not terms else terms[0] if len(terms) == 1 else {"$and": terms}

    def one(self, query, prepared):
        found = self.database.search(query, k=K, ef=self.effort, filter=prepared)
        return [int(hit["id"]) for hit in found]

    def many(self, queries, prepared):
        found = self.database.search_batch(queries, k=K, ef=self.effort, filter=prepared)
        return [[int(hit["id"]) for hit in hits] for hits in found]


LIBRARIES = {
    "OmenDB": OmenDB, "OmenDB recall=0.95": OmenDBRecall, "faiss": Faiss, "faiss-sq8": FaissBytes,
    "faiss-ivf": FaissIvf, "faiss-flat": FaissFlat, "hnswlib": Hnswlib, "usearch": Usearch,
    "usearch-i8": UsearchBytes, "lancedb": Lance, "zvec": Zvec, "sqlite-vec": SqliteVec,
    "omendb-upstream": Upstream,
}
