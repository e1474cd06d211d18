"""OmenDB from Python: one file to copy, with numpy and ctypes and nothing to compile.

    import numpy as np
    import omendb

    with omendb.open("notes.omen") as db:
        docs = db.collection("docs", dim=384, metric="cosine")
        ids = docs.add(embeddings)                      # (n, 384) array -> (n,) array of ids
        ids, distances = docs.search(question, k=5)     # (384,) array
        ids, distances = docs.search(questions, k=5)    # (m, 384) array -> (m, 5) arrays

        docs.put(embedding, key="intro.md", metadata={"lang": "en", "year": 2024})
        docs.search(question, filter="lang = 'en' AND year > ?", parameters=[2020])
        docs.search(question, group_by="doc")           # the best record of each document
        docs.search(like=[3, 7], unlike=["intro.md"])   # by stored records: ids or keys
        docs.facets("lang", filter="year > 2020")       # how many records have each value

The shared library is found by the environment variable OMENDB_LIBRARY, next to this file, in the
build folder of a source tree around this file, or where the system looks for libraries.

Calls of the library release the interpreter lock, so searches of several threads run at once.
Every failed call raises omendb.Error or the subclass of its kind, with the library's sentence.

Vectors are numpy arrays, or anything that numpy makes one of: one vector is one-dimensional, many
are two-dimensional. float32, float16, int8 and uint8 are passed on as they are, every other type
is converted to float32. For a collection of type i8 or u8, int8 or uint8 arrays hold the stored
units, and floating-point ones are multiplied by the scale. For a collection of bits, an array with
`dim` columns counts what is above 0 as 1, and a uint8 array with (dim + 7) // 8 columns holds packed
bits, the first in the lowest bit (numpy.packbits(..., bitorder="little")).

A record may have a key, a text that no other record of the collection has and that names it as well as
its id does, and metadata: a dict, or the text of a JSON object, whose values are texts, numbers,
booleans, None and lists of texts; numpy's scalars are taken for the plain ones. Other values raise
TypeError: a date, for instance, is stored as a text, and as "2024-05-17" is compared right. A key has at
most 1,024 bytes, the name of a field 255, a record 1,024 fields, its key and metadata together 1 MiB;
whole numbers beyond 64 bits become floats; NaN and infinity are refused.

A filter is a condition on metadata, as text or as the dict of its JSON form ("filters" in omendb.h has
the language); its parameters are a sequence, for ?, or a dict, for :name.
"""

from __future__ import annotations

import collections.abc
import ctypes
import ctypes.util
import json
import numbers
import operator
import os
import pathlib
import weakref
from contextlib import ExitStack, contextmanager
from typing import (
    Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple,
    Union,
)

import numpy as np

__all__ = [
    "AUTO", "Busy", "Collection", "Conflict", "Corrupt", "Database", "Declaration", "Dropped",
    "Error", "Exists", "Facets", "Format", "Full", "IOErr", "Invalid", "Mismatch", "Misuse", "NotFound",
    "OutOfMemory", "Permission", "Poisoned", "Quota", "ReadOnly", "Timeout", "TooBig", "Transaction",
    "Unsupported", "kernels", "open", "salvage", "version",
]

AUTO = 2**64 - 1
"""The id that asks for an automatic one; in results of a batch search: no further hit."""

_ABI = 2
_METRICS = {"l2": 0, "cosine": 1, "ip": 2, "hamming": 3}
_TYPES = {"f32": 0, "f16": 1, "bf16": 2, "i8": 3, "u8": 4, "b1": 5}
_SYNC = {"full": 0, "normal": 1, "off": 2}
_IO = {"map": 0, "pread": 1}
_FIELD_TYPES = {"any": 0, "i64": 1, "f64": 2, "bool": 3, "text": 4, "texts": 5}
_STATES = {1: "waiting", 2: "committed", 3: "rolled back"}
_NUMPY_TYPES = {np.dtype("<f4"): 0, np.dtype("<f2"): 1, np.dtype("i1"): 3, np.dtype("u1"): 4}

Vectors = Union[np.ndarray, Sequence]
Ids = Union[np.ndarray, Sequence[int], int]
Metadata = Union[Mapping[str, Any], str]
Condition = Union[Mapping[str, Any], str]
Parameters = Union[Mapping[str, Any], Sequence[Any]]
Record = Union[int, str]  # its id or its key
Records = Union[np.ndarray, Sequence[Record], Record]


class Facets(NamedTuple):
    """What Collection.facets counted."""

    values: List[Tuple[Any, int]]
    """Each value and the number of its records, those of the most records first."""
    records: int
    """Records that match."""
    nulls: int
    """Of them, those that lack the field or have null in it."""
    distinct: int
    """Distinct values, whatever the limit."""


class Declaration(NamedTuple):
    """What Collection.declaration tells; its parts are the arguments of Collection.declare."""

    fields: Dict[str, str]
    required: List[str]
    strict: bool


class Error(Exception):
    """A call failed. `code` is the number, `name` the short name, the text says what happened."""

    code = 0
    name = "error"


class Invalid(Error, ValueError):
    """A value is wrong: NaN, a zero vector under cosine, k of 0, a malformed name."""


class NotFound(Error, LookupError):
    """There is no such record, collection or database."""


class Exists(Error):
    """The id or the collection is already there."""


class Mismatch(Error, ValueError):
    """A schema differs from the stored one."""


class Busy(Error):
    """Another process or handle has the database open, or a writer waited too long."""


class Conflict(Error):
    """Another transaction changed the same record first; begin again."""


class ReadOnly(Error):
    """A write through a read-only database or snapshot."""


class Misuse(Error):
    """A call that the contract of omendb.h forbids, as one in a forked child."""


class OutOfMemory(Error, MemoryError):
    """No memory, or memory_limit is reached."""


class Full(Error):
    """The disk is full, or the automatic ids are used up."""


class IOErr(Error, OSError):
    """The operating system refused; the text names file and reason."""


class Permission(Error, PermissionError):
    """No permission to a file or directory."""


class Corrupt(Error):
    """Stored bytes are damaged; the text names file and offset."""


class Format(Error):
    """Not an OmenDB database, or one of a later format."""


class Poisoned(Error):
    """A sync failed earlier: close the database and open it again."""


class Dropped(Error):
    """The collection was dropped."""


class TooBig(Error):
    """Over a limit: 1 GiB of vectors a batch, 2^31 rows a segment."""


class Unsupported(Error):
    """This platform cannot do it."""


class Timeout(Error, TimeoutError):
    """A search took longer than it was given."""


class Quota(Error):
    """Over a limit of the collection (Collection.set_limits); nothing was done."""


# By the numbers of omendb_code; 19, the end of a cursor, is no error.
_ERRORS = {
    1: Invalid, 2: NotFound, 3: Exists, 4: Mismatch, 5: Busy, 6: Conflict, 7: ReadOnly, 8: Misuse,
    9: OutOfMemory, 10: Full, 11: IOErr, 12: Permission, 13: Corrupt, 14: Format, 15: Poisoned,
    16: Dropped, 17: TooBig, 18: Unsupported, 20: Timeout, 21: Quota,
}
_INVALID = 1
_NOT_FOUND = 2
_TOO_BIG = 17
_STILL_OPEN = (1, 7, 8)  # after these omendb_txn_prepare has not freed the transaction
_DONE = 19


# The structures of omendb.h, field by field


class _Options(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("memory_limit", ctypes.c_uint64),
        ("wal_limit", ctypes.c_uint64),
        ("tail_limit", ctypes.c_uint64),
        ("stall_timeout_ms", ctypes.c_uint32),
        ("threads", ctypes.c_int32),
        ("sync", ctypes.c_uint32),
        ("io", ctypes.c_uint32),
        ("read_only", ctypes.c_uint32),
        ("must_exist", ctypes.c_uint32),
        ("vfs", ctypes.c_void_p),
        ("allocator", ctypes.c_void_p),
        ("log", ctypes.c_void_p),
        ("log_context", ctypes.c_void_p),
    ]


class _Schema(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("dim", ctypes.c_uint32),
        ("metric", ctypes.c_uint32),
        ("scalar", ctypes.c_uint32),
        ("scale", ctypes.c_float),
        ("M", ctypes.c_uint32),
        ("ef_construction", ctypes.c_uint32),
        ("ef", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
    ]


class _Explain(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t)] + [
        (name, ctypes.c_uint64)
        for name in (
            "graph_rows", "scanned_rows", "expanded", "distances", "segments", "time_us", "ef",
        )
    ] + [
        ("recall", ctypes.c_float), ("warnings", ctypes.c_uint32),
        ("matches_tested", ctypes.c_uint64), ("selectivity", ctypes.c_float),
        ("path", ctypes.c_uint32),
    ]


class _Query(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("vector", ctypes.c_void_p),
        ("id", ctypes.c_uint64),
        ("vector_type", ctypes.c_uint32),
        ("ef", ctypes.c_uint32),
        ("k", ctypes.c_size_t),
        ("exact", ctypes.c_uint32),
        ("use_radius", ctypes.c_uint32),
        ("radius", ctypes.c_float),
        ("recall", ctypes.c_float),
        ("explain", ctypes.POINTER(_Explain)),
        ("timeout_us", ctypes.c_uint64),
        ("stretch", ctypes.c_float),
        ("reserved", ctypes.c_uint32),
        ("match", ctypes.c_void_p),
        ("match_context", ctypes.c_void_p),
        ("filter", ctypes.c_void_p),
        ("key", ctypes.c_char_p),
        ("positive_ids", ctypes.c_void_p),
        ("positive_count", ctypes.c_size_t),
        ("negative_ids", ctypes.c_void_p),
        ("negative_count", ctypes.c_size_t),
        ("group_by", ctypes.c_char_p),
        ("group_size", ctypes.c_size_t),
    ]


class _Facet(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("count", ctypes.c_uint64),
        ("text", ctypes.c_void_p),
        ("text_size", ctypes.c_size_t),
        ("i64", ctypes.c_int64),
        ("f64", ctypes.c_double),
        ("type", ctypes.c_uint32),
    ]


class _Limits(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t)] + [
        (name, ctypes.c_uint64)
        for name in ("records", "bytes", "queries_per_second", "writes_per_second")
    ]


class _Field(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_uint32),
        ("required", ctypes.c_uint32),
    ]


class _Record(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("id", ctypes.c_uint64),
        ("vector", ctypes.c_void_p),
        ("vector_type", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("key", ctypes.c_char_p),
        ("metadata", ctypes.c_char_p),
    ]


class _Stats(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t)] + [
        (name, ctypes.c_uint64)
        for name in (
            "commits", "collections", "records", "memory_bytes", "memory_peak_bytes",
            "mapped_bytes", "file_bytes", "wal_bytes", "written_bytes", "syncs", "commit_groups",
            "checkpoints", "merges", "merges_rebuilt", "open_transactions", "backup_bytes",
            "backup_kept_bytes",
            "open_cursors", "oldest_commit", "oldest_age_us", "pinned_rows", "pinned_bytes",
            "prepared_transactions", "held_bytes",
        )
    ]


class _SalvageResult(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t)] + [
        (name, ctypes.c_uint64)
        for name in (
            "collections", "records", "lost_rows", "doubtful", "problems", "lost_files", "lost_bytes",
        )
    ]


class _CollectionStats(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t)] + [
        (name, ctypes.c_uint64)
        for name in (
            "records", "rows", "unindexed_rows", "memtable_rows", "segments", "segment_bytes",
            "next_id", "hot_bytes",
        )
    ] + [("recall", ctypes.c_float), ("recall_queries", ctypes.c_uint32)] + [
        (name, ctypes.c_uint64)
        for name in ("bytes", "queries", "writes", "queries_refused", "writes_refused")
    ]


def _new(structure):
    made = structure()
    made.struct_size = ctypes.sizeof(structure)
    return made


def _as_dict(structure) -> Dict[str, Union[int, float]]:
    return {name: getattr(structure, name) for name, _ in structure._fields_[1:]}


_Progress = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)
_Report = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)
_Log = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)

_p, _i, _u64, _size = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_size_t
_text, _i64, _f64 = ctypes.c_char_p, ctypes.c_int64, ctypes.c_double

# Name, result, arguments. Pointers are void pointers: arrays and structures are passed by address.
_FUNCTIONS = [
    ("omendb_errmsg", _text, []),
    ("omendb_strerror", _text, [_i]),
    ("omendb_version", _text, []),
    ("omendb_abi_version", _i, []),
    ("omendb_kernels", _text, []),
    ("omendb_open", _i, [_text, _p, _p]),
    ("omendb_close", _i, [_p]),
    ("omendb_release", None, [_p]),
    ("omendb_refresh", _i, [_p]),
    ("omendb_checkpoint", _i, [_p]),
    ("omendb_optimize", _i, [_p, _Progress, _p]),
    ("omendb_work", _i, [_p, _u64, _p]),
    ("omendb_purge", _i, [_p, _text]),
    ("omendb_backup", _i, [_p, _text]),
    ("omendb_salvage", _i, [_text, _text, _p, _Report, _p, _p]),
    ("omendb_check", _i, [_p, _Report, _p, _p]),
    ("omendb_get_stats", _i, [_p, _p]),
    ("omendb_collection_create", _i, [_p, _text, _p, _p]),
    ("omendb_collection_open", _i, [_p, _text, _p, _p]),
    ("omendb_collection_open_or_create", _i, [_p, _text, _p, _p]),
    ("omendb_collection_create_batch", _i, [_p, _size, _p, _p]),
    ("omendb_collection_drop", _i, [_p, _text]),
    ("omendb_collection_close", None, [_p]),
    ("omendb_collection_name", _i, [_p, _size, _p, _size]),
    ("omendb_collection_schema", _i, [_p, _p]),
    ("omendb_collection_get_stats", _i, [_p, _p]),
    ("omendb_collection_set_limits", _i, [_p, _p]),
    ("omendb_collection_get_limits", _i, [_p, _p]),
    ("omendb_collection_declare", _i, [_p, _size, _p, _i]),
    ("omendb_collection_declaration", _i, [_p, _p, _p]),
    ("omendb_collection_field", _i, [_p, _size, _p, _p, _size]),
    ("omendb_txn_begin", _i, [_p, _i, _p]),
    ("omendb_txn_commit", _i, [_p]),
    ("omendb_txn_rollback", None, [_p]),
    ("omendb_txn_prepare", _i, [_p, _text]),
    ("omendb_commit_prepared", _i, [_p, _text]),
    ("omendb_rollback_prepared", _i, [_p, _text]),
    ("omendb_forget_prepared", _i, [_p, _text]),
    ("omendb_prepared_name", _i, [_p, _size, _p, _size, _p]),
    ("omendb_add_batch", _i, [_p, _p, _size, _p, _p, _i, _p]),
    ("omendb_put_batch", _i, [_p, _p, _size, _p, _p, _i, _p]),
    ("omendb_add_records", _i, [_p, _p, _size, _p, _p]),
    ("omendb_put_records", _i, [_p, _p, _size, _p, _p]),
    ("omendb_update", _i, [_p, _p, _u64, _text]),
    ("omendb_delete_batch", _i, [_p, _p, _size, _p, _p]),
    ("omendb_delete_key", _i, [_p, _p, _text]),
    ("omendb_delete_matching", _i, [_p, _p, _p, _p, _p, _p]),
    ("omendb_find", _i, [_p, _p, _text, _p]),
    ("omendb_get_key", _i, [_p, _p, _u64, _p, _size, _p]),
    ("omendb_get_metadata", _i, [_p, _p, _u64, _p, _size, _p, _size, _p]),
    ("omendb_get", _i, [_p, _p, _u64, _i, _p]),
    ("omendb_get_batch", _i, [_p, _p, _size, _p, _i, _p, _p]),
    ("omendb_count", _i, [_p, _p, _p]),
    ("omendb_count_matching", _i, [_p, _p, _p, _p, _p, _p]),
    ("omendb_scan_matching", _i, [_p, _p, _p, _u64, _u64, _p]),
    ("omendb_rows_next", _i, [_p, _p, _i, _p]),
    ("omendb_rows_key", _i, [_p, _p, _size, _p]),
    ("omendb_rows_metadata", _i, [_p, _p, _size, _p, _size, _p]),
    ("omendb_rows_close", None, [_p]),
    ("omendb_filter_compile", _i, [_p, _text, _p]),
    ("omendb_filter_free", None, [_p]),
    ("omendb_filter_parameter", _i, [_p, _text]),
    ("omendb_filter_parameter_count", _i, [_p]),
    ("omendb_filter_bind_null", _i, [_p, _i]),
    ("omendb_filter_bind_bool", _i, [_p, _i, _i]),
    ("omendb_filter_bind_i64", _i, [_p, _i, _i64]),
    ("omendb_filter_bind_u64", _i, [_p, _i, _u64]),
    ("omendb_filter_bind_f64", _i, [_p, _i, _f64]),
    ("omendb_filter_bind_text", _i, [_p, _i, _text]),
    ("omendb_filter_bind_texts", _i, [_p, _i, _p, _size]),
    ("omendb_search", _i, [_p, _p, _p, _p, _p, _p]),
    ("omendb_search_batch", _i, [_p, _p, _p, _p, _size, _p, _p, _p]),
    ("omendb_search_many", _i, [_p, _p, _p, _size, _p, _p, _p]),
    ("omendb_pages_open", _i, [_p, _p, _p, _p]),
    ("omendb_pages_next", _i, [_p, _size, _u64, _p, _p, _p]),
    ("omendb_pages_close", None, [_p]),
    ("omendb_facets_open", _i, [_p, _p, _p, _p, _p, _text, _size, _p]),
    ("omendb_facets_next", _i, [_p, _p]),
    ("omendb_facets_totals", _i, [_p, _p, _p, _p]),
    ("omendb_facets_close", None, [_p]),
    ("omendb_calibrate", _i, [_p, _p, _size, _i, _Progress, _p]),
]


def _library_places() -> Iterator[str]:
    given = os.environ.get("OMENDB_LIBRARY")
    if given:
        yield given
        return
    here = pathlib.Path(__file__).resolve().parent
    names = ("libomendb.so", "libomendb.dylib")
    folders = [here] + [folder / "build" for folder in list(here.parents)[:3]]
    for path in (folder / name for folder in folders for name in names):
        if path.exists():
            yield str(path)
    yield ctypes.util.find_library("omendb") or "libomendb.so"


def _load() -> ctypes.CDLL:
    path = next(_library_places())
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(
            f"the OmenDB library was not found ({error}); build it with `make` and set "
            "OMENDB_LIBRARY to libomendb.so, or put it next to omendb.py"
        ) from error
    for name, result, arguments in _FUNCTIONS:
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if library.omendb_abi_version() != _ABI:
        raise ImportError(f"{path} has another ABI ({library.omendb_abi_version()}, not {_ABI})")
    return library


_library = _load()


def _check(code: int) -> None:
    if code == 0:
        return
    raise _error(code, _library.omendb_errmsg().decode("utf-8", "replace"))


def _error(code: int, message: str) -> Error:
    name = _library.omendb_strerror(code).decode()
    error = _ERRORS.get(code, Error)(message or name)
    error.code, error.name = code, name
    return error


def _encode(text: Union[str, os.PathLike]) -> bytes:
    encoded = os.fsencode(text)
    if b"\0" in encoded:
        raise ValueError("a NUL character in a name")
    return encoded


def _number(names: Dict[str, int], what: str, name: str) -> int:
    if name not in names:
        raise ValueError(f"{what} {name!r}; there are {', '.join(names)}")
    return names[name]


def version() -> str:
    """Version of the library."""
    return _library.omendb_version().decode()


def kernels() -> str:
    """Instruction set that distances use, as "avx2"."""
    return _library.omendb_kernels().decode()


def open(path: Union[str, os.PathLike], **options: Any) -> Database:
    """Opens a database, creating it if it is missing; see Database for the options."""
    return Database(path, **options)


def salvage(
    path: Union[str, os.PathLike], new_path: Union[str, os.PathLike],
) -> Tuple[Dict[str, int], List[str]]:
    """Puts every record that is intact in a damaged database into a new one (omendb_salvage), where
    there is no backup. Returns what it got (omendb_salvage_result), and a line for each problem."""
    result = _new(_SalvageResult)
    lines: List[str] = []
    _check(_library.omendb_salvage(
        _encode(path), _encode(new_path), None, _reporter(lines), None, ctypes.byref(result)))
    return _as_dict(result), lines


def _reporter(lines: List[str]) -> Any:
    return _Report(lambda _context, line: lines.append(line.decode("utf-8", "replace")))


class _Handle:
    """Something that is closed: by close(), by leaving a `with` block, or when it is forgotten.

    Closed handles have no address; using one raises ValueError instead of reaching the library.
    """

    _address: Optional[int] = None
    _what = "handle"  # in the sentence of the error

    @property
    def _pointer(self) -> int:
        if self._address is None:
            raise ValueError(f"the {self._what} is closed")
        return self._address

    def _take(self) -> Optional[int]:
        address, self._address = self._address, None
        return address

    @property
    def closed(self) -> bool:
        return self._address is None

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self):
        self._pointer
        return self

    def __exit__(self, kind, value, traceback) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:  # an interpreter that shuts down has nobody to tell
            pass


def _schema(
    dim: int, metric: Optional[str], type: Optional[str], scale: float, M: int,
    ef_construction: int, ef: int, seed: int,
) -> _Schema:
    schema = _new(_Schema)
    schema.dim, schema.scale, schema.M = dim, scale, M
    schema.ef_construction, schema.ef, schema.seed = ef_construction, ef, seed
    schema.metric = _number(_METRICS, "metric", metric or "l2")
    schema.scalar = _number(_TYPES, "type", type or "f32")
    return schema


def _optional(txn: Optional[Transaction]) -> Optional[int]:
    return None if txn is None else txn._pointer


class Database(_Handle):
    """An open database. Any number of threads may use it at once.

    path:             a directory, or ":memory:".
    read_only:        opens beside a writer in another process; see refresh().
    must_exist:       raises NotFound instead of creating.
    sync:             "full": a commit returns when it is on the device; "normal", "off".
    io:               "map", or "pread" for files that are not trusted.
    threads:          of background work; None: the cores of this process.
    memory_limit:     bytes, at least 8 MiB; 0: none.
    wal_limit, tail_limit (bytes), stall_timeout_ms: 0 is the default.
    log:              called with a code and a line of text worth noting, as that a torn tail of the
                      log was cut or a background step failed: by any thread, while the database
                      waits. It must not use the database; what it raises is printed and dropped.
    """

    _what = "database"

    def __init__(
        self, path: Union[str, os.PathLike], *, read_only: bool = False, must_exist: bool = False,
        sync: str = "full", io: str = "map", threads: Optional[int] = None, memory_limit: int = 0,
        wal_limit: int = 0, tail_limit: int = 0, stall_timeout_ms: int = 0,
        log: Optional[Callable[[int, str], Any]] = None,
    ) -> None:
        self._children: "weakref.WeakSet[_Handle]" = weakref.WeakSet()
        self.path = os.fspath(path)
        options = _new(_Options)
        options.memory_limit, options.wal_limit = memory_limit, wal_limit
        options.tail_limit, options.stall_timeout_ms = tail_limit, stall_timeout_ms
        options.threads = -1 if threads is None else threads
        options.sync, options.io = _number(_SYNC, "sync", sync), _number(_IO, "io", io)
        options.read_only, options.must_exist = read_only, must_exist
        if log is not None:
            self._log = _Log(  # kept here for as long as the library may call it
                lambda _context, code, text: log(code, text.decode("utf-8", "replace")))
            options.log = ctypes.cast(self._log, _p)
        address = _p()
        _check(_library.omendb_open(_encode(path), ctypes.byref(options), ctypes.byref(address)))
        self._address = address.value

    def close(self) -> None:
        """Closes the database, its collections and what else is open in it; writes what is in
        memory to files. Open transactions are rolled back."""
        if self.closed:
            return
        for kind in (_Rows, _Pages, _Filter, Transaction, Collection):
            for child in list(self._children):
                if isinstance(child, kind):
                    child.close()
        _check(_library.omendb_close(self._take()))

    def __del__(self) -> None:
        # In a cycle of garbage the children may still be there: the last of them then closes it. What
        # they log still arrives, as nothing of a cycle is freed before all of it is finalized.
        _library.omendb_release(self._take())

    # collections

    def collection(
        self, name: str, *, dim: int = 0, metric: Optional[str] = None, type: Optional[str] = None,
        scale: float = 0.0, M: int = 0, ef_construction: int = 0, ef: int = 0, seed: int = 0,
        create: Optional[bool] = None,
    ) -> Collection:
        """Opens a collection; with `dim` also creates it if it is missing.

        dim:    elements of a vector (bits for type "b1").
        metric: "l2" (default: squared Euclidean distance), "cosine", "ip", "hamming".
        type:   how vectors are stored: "f32" (default), "f16", "bf16", "i8", "u8", "b1".
        scale:  for "i8" and "u8": stored = round(x * scale).
        create: True: it must be new; False: it must exist.

        Raises Mismatch if what is given differs from the stored schema; metric and type count as
        given with their defaults when anything is.
        """
        schema = _schema(dim, metric, type, scale, M, ef_construction, ef, seed)
        if create is None:
            create_or_open = "open_or_create" if dim else "open"
        else:
            create_or_open = "create" if create else "open"
        call = getattr(_library, f"omendb_collection_{create_or_open}")
        address = _p()
        given = any((dim, metric, type, scale, M, ef_construction, ef, seed)) or create
        _check(call(self._pointer, _encode(name), ctypes.byref(schema) if given else None,
                    ctypes.byref(address)))
        opened = Collection(self, name, address.value)
        if metric not in (None, opened.metric) or type not in (None, opened.type):
            opened.close()
            raise Mismatch(
                f"collection {name!r} has metric {opened.metric} and type {opened.type}")
        return opened

    def create_collections(
        self, names: Sequence[str], *, dim: int, metric: Optional[str] = None,
        type: Optional[str] = None, scale: float = 0.0, M: int = 0, ef_construction: int = 0,
        ef: int = 0, seed: int = 0,
    ) -> None:
        """Creates many collections of one schema in one commit, all or none; options as of
        collection()."""
        schema = _schema(dim, metric, type, scale, M, ef_construction, ef, seed)
        array, count = _names(names)
        _check(_library.omendb_collection_create_batch(
            self._pointer, count, array, ctypes.byref(schema)))

    def collections(self) -> List[str]:
        """Names of the collections, in the order of bytes."""
        names, name = [], ctypes.create_string_buffer(256)
        while True:
            code = _library.omendb_collection_name(self._pointer, len(names), name, len(name))
            if code == _DONE:
                return names
            _check(code)
            names.append(os.fsdecode(name.value))

    def drop(self, name: str) -> None:
        """Deletes a collection with its records."""
        _check(_library.omendb_collection_drop(self._pointer, _encode(name)))

    def __contains__(self, name: object) -> bool:
        return name in self.collections()

    def __iter__(self) -> Iterator[str]:
        return iter(self.collections())

    # transactions

    def transaction(self) -> Transaction:
        """Begins a writing transaction. As a context manager it commits at the end of the block,
        and rolls back if the block raises:

            with db.transaction() as txn:
                docs.add(vectors, ids, txn=txn)
                docs.delete(old, txn=txn)
        """
        return Transaction(self, 0)

    def snapshot(self) -> Transaction:
        """Begins a read-only transaction: it sees the database as it is now, whatever others do."""
        return Transaction(self, 1)

    # transactions that were prepared, see Transaction.prepare

    def prepared(self) -> List[Tuple[str, str]]:
        """Names and states, in the order of names: "waiting", "committed", "rolled back"."""
        found: List[Tuple[str, str]] = []
        name, state = ctypes.create_string_buffer(256), ctypes.c_int()
        while True:
            code = _library.omendb_prepared_name(
                self._pointer, len(found), name, len(name), ctypes.byref(state))
            if code == _DONE:
                return found
            _check(code)
            found.append((os.fsdecode(name.value), _STATES[state.value]))

    def commit_prepared(self, name: str) -> None:
        """Applies what was prepared under this name; Conflict if it was rolled back."""
        _check(_library.omendb_commit_prepared(self._pointer, _encode(name)))

    def rollback_prepared(self, name: str) -> None:
        """Drops what was prepared under this name; Conflict if it was committed."""
        _check(_library.omendb_rollback_prepared(self._pointer, _encode(name)))

    def forget_prepared(self, name: str) -> None:
        """Forgets an outcome, once every participant has it; Busy while it waits."""
        _check(_library.omendb_forget_prepared(self._pointer, _encode(name)))

    # upkeep

    def refresh(self) -> None:
        """Moves a read-only database on to what the writer has made durable since."""
        _check(_library.omendb_refresh(self._pointer))

    def checkpoint(self) -> None:
        """Writes what is in memory to segment files, which makes the log short."""
        _check(_library.omendb_checkpoint(self._pointer))

    def optimize(self, progress: Optional[Callable[[int, int], Any]] = None) -> None:
        """Finishes all graphs, drops deleted rows, merges segments. `progress` is called with rows
        done and rows in all, and stops the work by returning True."""
        raised: List[BaseException] = []

        def step(_context, done, total):
            try:
                return 1 if progress is not None and progress(done, total) is True else 0
            except BaseException as error:
                raised.append(error)
                return 1

        _check(_library.omendb_optimize(self._pointer, _Progress(step), None))
        if raised:
            raise raised[0]

    def work(self, budget_us: int = AUTO) -> bool:
        """Does background work in this thread (for threads=0); True if some is left."""
        more = ctypes.c_int()
        _check(_library.omendb_work(self._pointer, budget_us, ctypes.byref(more)))
        return bool(more.value)

    def purge(self, name: Optional[str] = None) -> None:
        """Overwrites the bytes of deleted and replaced vectors: of one collection, or of all."""
        _check(_library.omendb_purge(self._pointer, None if name is None else _encode(name)))

    def backup(self, path: Union[str, os.PathLike]) -> None:
        """Writes a consistent copy into a new directory, or brings an earlier backup up to date, while
        others read and write."""
        _check(_library.omendb_backup(self._pointer, _encode(path)))

    def check(self) -> List[str]:
        """Verifies every checksum and structure; the problems, hence [] if all is well."""
        lines: List[str] = []
        problems = ctypes.c_uint64()
        _check(_library.omendb_check(self._pointer, _reporter(lines), None, ctypes.byref(problems)))
        return lines

    def stats(self) -> Dict[str, int]:
        """Numbers of the whole database (omendb_stats)."""
        stats = _new(_Stats)
        _check(_library.omendb_get_stats(self._pointer, ctypes.byref(stats)))
        return _as_dict(stats)

    def __repr__(self) -> str:
        return f"<omendb.Database {self.path!r}{' closed' if self.closed else ''}>"


class Transaction(_Handle):
    """Changes that are applied together, or a snapshot. For one thread at a time."""

    _what = "transaction"

    def __init__(self, db: Database, mode: int) -> None:
        address = _p()
        _check(_library.omendb_txn_begin(db._pointer, mode, ctypes.byref(address)))
        self._db, self._writes, self._address = db, mode == 0, address.value
        db._children.add(self)

    def commit(self) -> None:
        """Applies the changes: all, or, with Conflict or another error, none."""
        self._pointer
        _check(_library.omendb_txn_commit(self._take()))

    def prepare(self, name: str) -> None:
        """Ends it as the first phase of a commit over several databases: the changes are written
        down under this name, hidden, and their records locked, until Database.commit_prepared or
        rollback_prepared, also after a crash (omendb_txn_prepare)."""
        encoded = _encode(name)
        code = _library.omendb_txn_prepare(self._pointer, encoded)
        if code not in _STILL_OPEN:
            self._take()
        _check(code)

    def rollback(self) -> None:
        """Drops the changes, or ends the snapshot."""
        _library.omendb_txn_rollback(self._take())

    close = rollback

    def __exit__(self, kind, value, traceback) -> None:
        if self._writes and kind is None and not self.closed:
            self.commit()
        else:
            self.rollback()


class Collection(_Handle):
    """Vectors under ids. Any number of threads may use it at once. Made by Database.collection."""

    _what = "collection"

    def __init__(self, db: Database, name: str, address: Optional[int]) -> None:
        self._db, self._address, self.name = db, address, name
        db._children.add(self)
        schema = _new(_Schema)
        _check(_library.omendb_collection_schema(self._pointer, ctypes.byref(schema)))
        self.dim: int = schema.dim
        self.metric: str = list(_METRICS)[schema.metric]
        self.type: str = list(_TYPES)[schema.scalar]
        self.scale: float = schema.scale
        self.M: int = schema.M
        self.ef_construction: int = schema.ef_construction
        self.ef: int = schema.ef

    def close(self) -> None:
        """Releases the collection; the database stays open."""
        _library.omendb_collection_close(self._take())

    # writing

    def add(
        self, vectors: Vectors, ids: Optional[Ids] = None, *, key: Union[str, Sequence, None] = None,
        metadata: Union[Metadata, Sequence, None] = None, txn: Optional[Transaction] = None,
    ) -> Union[int, np.ndarray]:
        """Adds vectors as one commit: all, or none. Returns the ids (of one vector: the id).

        ids:      one a vector; without: automatic ones. Raises Exists if one is taken.
        key:      of one vector: its key; of many: a sequence with a key, or None, for each.
        metadata: of one vector: a dict or a JSON object as text; of many: a sequence of them.
        """
        return self._write("add", vectors, ids, key, metadata, txn)

    def put(
        self, vectors: Vectors, ids: Optional[Ids] = None, *, key: Union[str, Sequence, None] = None,
        metadata: Union[Metadata, Sequence, None] = None, txn: Optional[Transaction] = None,
    ) -> Union[int, np.ndarray]:
        """As add, but records with the same ids are replaced, with key and metadata; without ids
        those with the same keys, which keep their ids."""
        return self._write("put", vectors, ids, key, metadata, txn)

    def add_records(
        self, records: Iterable[Mapping[str, Any]], *, txn: Optional[Transaction] = None,
    ) -> np.ndarray:
        """As add, of dicts: {"vector": ..., "id": ..., "key": ..., "metadata": ...}. Only the vector
        must be there; the id in all of them, or in none."""
        return self._write("add", *_columns_of(records, self.dim), txn)

    def put_records(
        self, records: Iterable[Mapping[str, Any]], *, txn: Optional[Transaction] = None,
    ) -> np.ndarray:
        """As put, of dicts: see add_records."""
        return self._write("put", *_columns_of(records, self.dim), txn)

    def update(
        self, record: Record, metadata: Metadata, *, txn: Optional[Transaction] = None,
    ) -> None:
        """Changes fields of the metadata of a record; None removes a field."""
        if isinstance(record, str):
            with self._within(txn, writes=True) as within:
                return self.update(self.find(record, txn=within), metadata, txn=within)
        _check(_library.omendb_update(
            self._pointer, _optional(txn), _one_id(record), _metadata(metadata)))

    def delete(self, records: Records, *, txn: Optional[Transaction] = None) -> int:
        """Deletes those records that exist, as one commit. Returns how many there were."""
        if _has_keys(records):
            with self._within(txn, writes=True) as within:
                return self.delete(self._ids_of(records, within, missing=True), txn=within)
        array = _id_array(records)
        deleted = _size()
        _check(_library.omendb_delete_batch(
            self._pointer, _optional(txn), array.size, array.ctypes.data, ctypes.byref(deleted)))
        return deleted.value

    def delete_key(self, key: str, *, txn: Optional[Transaction] = None) -> None:
        """Deletes the record that has a key."""
        _check(_library.omendb_delete_key(self._pointer, _optional(txn), _utf8(key)))

    def delete_where(
        self, filter: Condition, parameters: Optional[Parameters] = None, *,
        txn: Optional[Transaction] = None,
    ) -> int:
        """Deletes the records that match, as one commit. Returns how many there were."""
        if filter is None:
            raise TypeError("a filter is needed")
        deleted = _u64()
        with _Filter(self._db, filter, parameters) as condition:
            _check(_library.omendb_delete_matching(
                self._pointer, _optional(txn), condition._address, None, None,
                ctypes.byref(deleted)))
        return deleted.value

    # reading

    def get(
        self, records: Records, *, stored: bool = False, txn: Optional[Transaction] = None,
    ) -> np.ndarray:
        """The vectors of records as float32: one row a record, or one vector for one id or key.

        stored: True: as they are stored, where numpy has such a type (not bf16).
        """
        if _has_keys(records):
            with self._within(txn, writes=False) as within:
                vectors = self.get(self._ids_of(records, within), stored=stored, txn=within)
            return vectors[0] if isinstance(records, str) else vectors
        array = _id_array(records)
        type_name = self.type if stored else "f32"
        dtypes = {"f32": "<f4", "f16": "<f2", "i8": "i1", "u8": "u1", "b1": "u1"}
        if type_name not in dtypes:
            raise ValueError(f"numpy has no type for {type_name}; leave out stored=True")
        columns = (self.dim + 7) // 8 if type_name == "b1" else self.dim
        vectors = np.empty((array.size, columns), dtypes[type_name])
        _check(_library.omendb_get_batch(
            self._pointer, _optional(txn), array.size, array.ctypes.data, _TYPES[type_name],
            vectors.ctypes.data, None))
        return vectors[0] if np.ndim(records) == 0 else vectors

    def find(self, key: str, *, txn: Optional[Transaction] = None) -> int:
        """The id of the record that has a key; NotFound if none has."""
        record = _u64()
        _check(_library.omendb_find(
            self._pointer, _optional(txn), _utf8(key), ctypes.byref(record)))
        return record.value

    def get_key(self, record: int, *, txn: Optional[Transaction] = None) -> Optional[str]:
        """The key of a record; None if it has none."""
        return _copied(
            _library.omendb_get_key, self._pointer, _optional(txn), _one_id(record)) or None

    def get_metadata(
        self, record: Record, fields: Optional[Sequence[str]] = None, *,
        txn: Optional[Transaction] = None,
    ) -> Dict[str, Any]:
        """The metadata of a record, {} if it has none; or those of these fields that it has."""
        if isinstance(record, str):
            with self._within(txn, writes=False) as within:
                return self.get_metadata(self.find(record, txn=within), fields, txn=within)
        return json.loads(_copied(
            _library.omendb_get_metadata, self._pointer, _optional(txn), _one_id(record),
            *_names(fields)))

    def __contains__(self, record: object) -> bool:
        if isinstance(record, str):
            code = _library.omendb_find(self._pointer, None, _utf8(record), None)
        else:
            code = _library.omendb_get(self._pointer, None, _one_id(record), 0, None)
        if code == _NOT_FOUND:
            return False
        _check(code)
        return True

    def count(
        self, filter: Optional[Condition] = None, parameters: Optional[Parameters] = None, *,
        txn: Optional[Transaction] = None,
    ) -> int:
        """Number of records, or of those that match."""
        count = _u64()
        with _Filter(self._db, filter, parameters) as condition:
            if condition.closed:
                _check(_library.omendb_count(self._pointer, _optional(txn), ctypes.byref(count)))
            else:
                _check(_library.omendb_count_matching(
                    self._pointer, _optional(txn), condition._address, None, None,
                    ctypes.byref(count)))
        return count.value

    def __len__(self) -> int:
        return self.count()

    def scan(
        self, first: int = 0, last: int = AUTO - 1, *, filter: Optional[Condition] = None,
        parameters: Optional[Parameters] = None, key: bool = False,
        metadata: Union[bool, Sequence[str]] = False, txn: Optional[Transaction] = None,
    ) -> Iterator[Tuple]:
        """The records with first <= id <= last in the order of ids, as (id, float32 vector).

        filter:   only those that match.
        key:      True: the key, or None, comes behind the vector.
        metadata: True: the dict of the metadata comes at the end; names of fields: of those only.
        """
        fields = None if isinstance(metadata, bool) else metadata
        with _Filter(self._db, filter, parameters) as condition, \
                _Rows(self, first, last, txn, condition) as rows:
            record = _u64()
            while True:
                vector = np.empty(self.dim, np.float32)
                code = _library.omendb_rows_next(
                    rows._pointer, ctypes.byref(record), 0, vector.ctypes.data)
                if code == _DONE:
                    return
                _check(code)
                row = [record.value, vector]
                if key:
                    row.append(_copied(_library.omendb_rows_key, rows._pointer) or None)
                if metadata is not False:
                    row.append(json.loads(_copied(
                        _library.omendb_rows_metadata, rows._pointer, *_names(fields))))
                yield tuple(row)

    def __iter__(self) -> Iterator[Tuple[int, np.ndarray]]:
        return self.scan()

    # searching

    def search(
        self, vectors: Optional[Vectors] = None, k: int = 10, *, ef: int = 0, recall: float = 0.0,
        stretch: float = 0.0, exact: bool = False, radius: Optional[float] = None,
        timeout: Optional[float] = None, filter: Optional[Condition] = None,
        parameters: Optional[Parameters] = None, like: Optional[Records] = None,
        unlike: Optional[Records] = None, group_by: Optional[str] = None, group_size: int = 0,
        txn: Optional[Transaction] = None,
    ) -> Tuple[np.ndarray, np.ndarray]:
        """The nearest records: ids (uint64) and distances (float32), nearest first.

        vectors: one vector: arrays of as many hits as there are, at most k. Many vectors: arrays of
                 k columns, searched over all threads; places without a hit are AUTO and infinity.
        ef:      candidates kept while walking the graph: more is slower and finds more.
        recall:  in place of ef: the share of the true nearest to find, on average, as 0.95; kept by
                 measuring while segments are merged (see omendb_query in omendb.h).
        stretch: 1 or more: a walk also stops where the nearest candidate left is this many times
                 farther than the k-th hit so far (of "l2": the square is); ef then is a bound only.
                 1.1 to 1.4 finds what an ef of 30 to 400 finds, with less work on easy queries.
        exact:   compares every record.
        radius:  only hits that are no farther.
        timeout: seconds after which the call gives up and raises Timeout.
        filter:  only records that match; parameters: the values of its ? or :name.
        like, unlike: in place of vectors: ids or keys of records that hits shall be like, and of such
                 that they shall not be like; they are left out of the hits.
        group_by: a field, or "_key": at most group_size hits (1) have the same value of it, the
                 nearest ones.
        """
        if vectors is None or np.ndim(vectors) == 1:
            query = self._query(
                k, ef, recall, stretch, exact, radius, timeout, group_by, group_size)
            self._set_question(query, vectors, None, like, unlike, txn)
            return self._search_one(query, filter, parameters, txn)
        if like is not None or unlike is not None:
            raise ValueError("like and unlike stand in place of vectors")
        array, vector_type = self._vectors(vectors)
        query = self._query(k, ef, recall, stretch, exact, radius, timeout, group_by, group_size)
        query.vector_type = vector_type
        ids = np.empty((len(array), k), np.uint64)
        distances = np.empty((len(array), k), np.float32)
        with _Filter(self._db, filter, parameters) as condition:
            query.filter = condition._address
            _check(_library.omendb_search_batch(
                self._pointer, _optional(txn), ctypes.byref(query), array.ctypes.data, len(array),
                ids.ctypes.data, distances.ctypes.data, None))
        return ids, distances

    def search_like(
        self, record: Record, k: int = 10, *, ef: int = 0, recall: float = 0.0,
        stretch: float = 0.0, exact: bool = False, radius: Optional[float] = None,
        timeout: Optional[float] = None, filter: Optional[Condition] = None,
        parameters: Optional[Parameters] = None, group_by: Optional[str] = None,
        group_size: int = 0, txn: Optional[Transaction] = None,
    ) -> Tuple[np.ndarray, np.ndarray]:
        """The records nearest to a stored one, named by its id or its key, itself left out; options
        as of search()."""
        query = self._query(k, ef, recall, stretch, exact, radius, timeout, group_by, group_size)
        self._set_question(query, None, record, None, None, txn)
        return self._search_one(query, filter, parameters, txn)

    def search_many(
        self, queries: Iterable[Mapping[str, Any]], *, txn: Optional[Transaction] = None,
    ) -> List[Tuple[np.ndarray, np.ndarray]]:
        """Many searches over all threads, at one state of the database. Each is a dict of what
        search() takes, with one "vector", or a "record" as of search_like(), or "like":

            docs.search_many([{"vector": question, "k": 5, "filter": "year > 2020"},
                              {"record": "intro.md", "group_by": "doc"}])

        Returns ids and distances of each; an error names the number of the query.
        """
        with ExitStack() as conditions:
            made = [self._query_of(options, conditions, txn) for options in queries]
            array = (_Query * max(1, len(made)))(*made)
            k = max([query.k for query in made], default=0)
            ids = np.empty((len(made), k), np.uint64)
            distances = np.empty((len(made), k), np.float32)
            counts = (_size * max(1, len(made)))()
            _check(_library.omendb_search_many(
                self._pointer, _optional(txn), array, len(made), ids.ctypes.data,
                distances.ctypes.data, counts))
        return [(ids[i, :counts[i]], distances[i, :counts[i]]) for i in range(len(made))]

    def pages(
        self, vector: Optional[Vectors] = None, k: int = 10, *, ef: int = 0, recall: float = 0.0,
        stretch: float = 0.0, exact: bool = False, radius: Optional[float] = None,
        timeout: Optional[float] = None, filter: Optional[Condition] = None,
        parameters: Optional[Parameters] = None, like: Optional[Records] = None,
        unlike: Optional[Records] = None, txn: Optional[Transaction] = None,
    ) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """The hits of one search, k at a time, until all records that match have come; options as of
        search(), the timeout for each page. They are those of the state at this call, and none is
        given twice (omendb_pages_open)."""
        query = self._query(k, ef, recall, stretch, exact, radius, None, None, 0)
        self._set_question(query, vector, None, like, unlike, txn)
        timeout_us = 0 if timeout is None else _microseconds(timeout)
        opened = _Pages(self, query, _Filter(self._db, filter, parameters), txn)
        return opened.turn(k, timeout_us)

    def explain(
        self, vector: Optional[Vectors] = None, k: int = 10, *, ef: int = 0, recall: float = 0.0,
        stretch: float = 0.0, exact: bool = False, radius: Optional[float] = None,
        timeout: Optional[float] = None, filter: Optional[Condition] = None,
        parameters: Optional[Parameters] = None, like: Optional[Records] = None,
        unlike: Optional[Records] = None, group_by: Optional[str] = None, group_size: int = 0,
        txn: Optional[Transaction] = None,
    ) -> Dict[str, Union[int, float]]:
        """What a search for one vector, or by examples, does (omendb_explain); options as of
        search()."""
        explain = _new(_Explain)
        query = self._query(k, ef, recall, stretch, exact, radius, timeout, group_by, group_size)
        self._set_question(query, vector, None, like, unlike, txn)
        query.explain = ctypes.pointer(explain)
        self._search_one(query, filter, parameters, txn)
        return _as_dict(explain)

    def facets(
        self, field: str, filter: Optional[Condition] = None,
        parameters: Optional[Parameters] = None, *, limit: int = 0,
        txn: Optional[Transaction] = None,
    ) -> Facets:
        """How many of the records, or of those that match, have each value of a field; of an array
        each of its texts counts.

        limit: the values that are told, those of the most records; 0: all.
        """
        address, totals, facet = _p(), (_u64(), _u64(), _u64()), _new(_Facet)
        values: List[Tuple[Any, int]] = []
        if limit < 0:
            raise ValueError("limit is not below 0")
        with _Filter(self._db, filter, parameters) as condition:
            _check(_library.omendb_facets_open(
                self._pointer, _optional(txn), condition._address, None, None, _utf8(field), limit,
                ctypes.byref(address)))
        try:
            _check(_library.omendb_facets_totals(address, *map(ctypes.byref, totals)))
            while True:
                code = _library.omendb_facets_next(address, ctypes.byref(facet))
                if code == _DONE:
                    return Facets(values, *(total.value for total in totals))
                _check(code)
                values.append((_value(facet), facet.count))
        finally:
            _library.omendb_facets_close(address)

    def calibrate(self, queries: Vectors) -> None:
        """Measures recall on queries like those that will be asked, 50 or more that are not records;
        searches with recall= keep to it from then on (omendb_calibrate)."""
        array, vector_type = self._vectors(queries)
        _check(_library.omendb_calibrate(
            self._pointer, array.ctypes.data, len(array), vector_type, _Progress(0), None))

    def stats(self) -> Dict[str, Union[int, float]]:
        """Numbers of the collection (omendb_collection_stats)."""
        stats = _new(_CollectionStats)
        _check(_library.omendb_collection_get_stats(self._pointer, ctypes.byref(stats)))
        return _as_dict(stats)

    # what may be stored

    def limits(self) -> Dict[str, int]:
        """What the collection may hold, and how often it may be used (omendb_limits); 0: no limit.
        stats() tells what is taken of it."""
        limits = _new(_Limits)
        _check(_library.omendb_collection_get_limits(self._pointer, ctypes.byref(limits)))
        return _as_dict(limits)

    def set_limits(
        self, *, records: int = 0, bytes: int = 0, queries_per_second: int = 0,
        writes_per_second: int = 0,
    ) -> None:
        """Sets all limits, in place of those before; what is over one raises Quota."""
        given = (records, bytes, queries_per_second, writes_per_second)
        if not all(0 <= operator.index(limit) < 2**64 for limit in given):
            raise ValueError(f"a limit of {given}")
        limits = _Limits(ctypes.sizeof(_Limits), *given)
        _check(_library.omendb_collection_set_limits(self._pointer, ctypes.byref(limits)))

    def declare(
        self, fields: Mapping[str, str], required: Iterable[str] = (), strict: bool = False,
    ) -> None:
        """Declares fields of the metadata, in place of what was declared before: what is written from
        then on must be like that, or raises Invalid. declare({}) takes it back.

        fields:   names, and their types: "i64", "f64", "bool", "text", "texts", "any".
        required: those that each record must have, and not as None.
        strict:   True: metadata may have no other fields.
        """
        needed = set(required)
        if not needed <= set(fields):
            raise ValueError(f"required, but no field: {', '.join(sorted(needed - set(fields)))}")
        declared = (_Field * max(1, len(fields)))(*(
            (ctypes.sizeof(_Field), _utf8(name), _number(_FIELD_TYPES, "type", type), name in needed)
            for name, type in fields.items()))
        _check(_library.omendb_collection_declare(self._pointer, len(fields), declared, strict))

    def declaration(self) -> Declaration:
        """The fields that are declared and their types, those that are required, and whether others
        are refused."""
        strict, field = ctypes.c_int(), _new(_Field)
        name = ctypes.create_string_buffer(256)
        declared = Declaration({}, [], False)
        _check(_library.omendb_collection_declaration(self._pointer, None, ctypes.byref(strict)))
        while True:
            code = _library.omendb_collection_field(
                self._pointer, len(declared.fields), ctypes.byref(field), name, len(name))
            if code == _DONE:
                return declared._replace(strict=bool(strict.value))
            _check(code)
            declared.fields[name.value.decode()] = list(_FIELD_TYPES)[field.type]
            if field.required:
                declared.required.append(name.value.decode())

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<omendb.Collection {self.name!r} {self.dim} x {self.type} {self.metric}{state}>"

    # inside

    @contextmanager
    def _within(self, txn: Optional[Transaction], writes: bool) -> Iterator[Transaction]:
        """The transaction, or where there is none a new one for what is done with a key: else another
        thread might give the key to another record between finding and using the id."""
        if txn is not None:
            yield txn
            return
        with self._db.transaction() if writes else self._db.snapshot() as own:
            yield own

    def _ids_of(
        self, records: Records, txn: Optional[Transaction], missing: bool = False,
    ) -> List[int]:
        """The ids of records, some of which are named by keys; missing: True: but of those only that
        are there."""
        ids: List[int] = []
        for record in [records] if isinstance(records, str) else records:
            try:
                ids.append(
                    self.find(record, txn=txn) if isinstance(record, str) else _one_id(record))
            except NotFound:
                if not missing:
                    raise
        return ids

    def _vectors(self, vectors: Vectors) -> Tuple[np.ndarray, int]:
        """The vectors as a contiguous two-dimensional array, and its element type."""
        array = np.asarray(vectors)
        if array.dtype == np.bool_:
            array = array.astype(np.uint8)
        elif array.dtype not in _NUMPY_TYPES:
            with np.errstate(over="ignore"):  # what becomes infinite is refused by the library
                array = array.astype(np.float32)
        packed = (self.dim + 7) // 8
        is_packed = self.type == "b1" and array.dtype == np.uint8 and self.dim != packed and (
            array.ndim > 0 and array.shape[-1] == packed)
        columns = packed if is_packed else self.dim
        if array.ndim not in (1, 2) or array.shape[-1] != columns:
            raise ValueError(
                f"an array of shape {array.shape}; collection {self.name!r} holds vectors of "
                f"{self.dim}")
        vector_type = _TYPES["b1"] if is_packed else _NUMPY_TYPES[array.dtype]
        return np.ascontiguousarray(array.reshape(-1, columns)), vector_type

    def _write(self, verb, vectors, ids, key, metadata, txn) -> Union[int, np.ndarray]:
        array, vector_type = self._vectors(vectors)
        given = None if ids is None else _id_array(ids)
        if given is not None and given.size != len(array):
            raise ValueError(f"{given.size} ids for {len(array)} vectors")
        is_one = np.ndim(vectors) == 1
        new_ids = np.empty(len(array), np.uint64)
        if key is None and metadata is None:
            _check(getattr(_library, f"omendb_{verb}_batch")(
                self._pointer, _optional(txn), len(array),
                None if given is None else given.ctypes.data, array.ctypes.data, vector_type,
                new_ids.ctypes.data))
        else:
            records = _record_array(
                array, vector_type, given, [key] if is_one else key,
                [metadata] if is_one else metadata)
            _check(getattr(_library, f"omendb_{verb}_records")(
                self._pointer, _optional(txn), len(array), ctypes.byref(records),
                new_ids.ctypes.data))
        return int(new_ids[0]) if is_one else new_ids

    def _query(
        self, k: int, ef: int, recall: float, stretch: float, exact: bool,
        radius: Optional[float], timeout: Optional[float], group_by: Optional[str],
        group_size: int,
    ) -> _Query:
        query = _new(_Query)
        if k < 0 or ef < 0 or group_size < 0:
            raise ValueError("k, ef and group_size are above 0")
        query.id, query.k, query.ef, query.exact, query.recall = AUTO, k, ef, exact, recall
        query.use_radius, query.radius = radius is not None, radius or 0.0
        query.stretch = stretch
        query.timeout_us = 0 if timeout is None else _microseconds(timeout)
        query.group_by = None if group_by is None else _utf8(group_by)
        query.group_size = group_size
        return query

    def _set_question(
        self, query: _Query, vector: Optional[Vectors], record: Union[int, str, None],
        like: Optional[Records], unlike: Optional[Records], txn: Optional[Transaction],
    ) -> None:
        """One of vector, record and examples; the arrays live as long as the query."""
        if sum(given is not None for given in (vector, record, like)) != 1:
            raise ValueError("search for what? a vector, a record, or like=")
        if unlike is not None and like is None:
            raise ValueError("unlike goes with like")
        if vector is not None:
            if np.ndim(vector) != 1:
                raise ValueError("one vector is needed")
            array, query.vector_type = self._vectors(vector)
            query.vector, query.kept = array.ctypes.data, array
        elif isinstance(record, str):
            query.key = _utf8(record)
        elif record is not None:
            query.id = _one_id(record)
        else:
            positive, negative = self._examples(like, txn), self._examples(unlike, txn)
            query.kept = positive, negative
            query.positive_ids, query.positive_count = positive.ctypes.data, positive.size
            query.negative_ids, query.negative_count = negative.ctypes.data, negative.size

    def _examples(self, records: Optional[Records], txn: Optional[Transaction]) -> np.ndarray:
        """Their ids."""
        if isinstance(records, np.ndarray) or records is None:
            return _id_array([] if records is None else records)
        listed = [records] if isinstance(records, numbers.Integral) else records
        return _id_array(self._ids_of(listed, txn))

    def _query_of(
        self, options: Mapping[str, Any], conditions: ExitStack, txn: Optional[Transaction],
    ) -> _Query:
        """One of search_many; its filter is closed with `conditions`."""
        given = dict(options)
        question = [given.pop(name, None) for name in ("vector", "record", "like", "unlike")]
        condition = _Filter(self._db, given.pop("filter", None), given.pop("parameters", None))
        conditions.enter_context(condition)
        defaults = {"k": 10, "ef": 0, "recall": 0.0, "stretch": 0.0, "exact": False, "radius": None,
                    "timeout": None, "group_by": None, "group_size": 0}
        if not set(given) <= set(defaults):
            raise TypeError(f"a query has no {', '.join(sorted(set(given) - set(defaults)))}")
        query = self._query(**{**defaults, **given})
        self._set_question(query, *question, txn)
        query.filter = condition._address
        return query

    def _search_one(
        self, query: _Query, filter: Optional[Condition], parameters: Optional[Parameters],
        txn: Optional[Transaction],
    ) -> Tuple[np.ndarray, np.ndarray]:
        ids = np.empty(query.k, np.uint64)
        distances = np.empty(query.k, np.float32)
        count = _size()
        with _Filter(self._db, filter, parameters) as condition:
            query.filter = condition._address
            _check(_library.omendb_search(
                self._pointer, _optional(txn), ctypes.byref(query), ids.ctypes.data,
                distances.ctypes.data, ctypes.byref(count)))
        return ids[:count.value], distances[:count.value]


class _Rows(_Handle):
    """A cursor."""

    _what = "scan"

    def __init__(
        self, collection: Collection, first: int, last: int, txn: Optional[Transaction],
        condition: _Filter,
    ) -> None:
        address = _p()
        _check(_library.omendb_scan_matching(
            collection._pointer, _optional(txn), condition._address, _one_id(first), _one_id(last),
            ctypes.byref(address)))
        self._collection, self._condition = collection, condition  # which must not go first
        self._address = address.value
        collection._db._children.add(self)

    def close(self) -> None:
        _library.omendb_rows_close(self._take())


class _Pages(_Handle):
    """A cursor over the hits of a query."""

    _what = "search by pages"

    def __init__(
        self, collection: Collection, query: _Query, condition: _Filter, txn: Optional[Transaction],
    ) -> None:
        address = _p()
        self._collection, self._condition = collection, condition  # which must not go first
        query.filter = condition._address
        _check(_library.omendb_pages_open(
            collection._pointer, _optional(txn), ctypes.byref(query), ctypes.byref(address)))
        self._address = address.value
        collection._db._children.add(self)

    def turn(self, k: int, timeout_us: int) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        with self:
            while True:
                ids, distances, count = np.empty(k, np.uint64), np.empty(k, np.float32), _size()
                code = _library.omendb_pages_next(
                    self._pointer, k, timeout_us, ids.ctypes.data, distances.ctypes.data,
                    ctypes.byref(count))
                if code == _DONE:
                    return
                _check(code)
                yield ids[:count.value], distances[:count.value]

    def close(self) -> None:
        _library.omendb_pages_close(self._take())
        self._condition.close()


class _Filter(_Handle):
    """A condition with its parameters; of None, a closed one, whose address lets all match."""

    _what = "filter"

    def __init__(
        self, db: Database, text: Optional[Condition], parameters: Optional[Parameters],
    ) -> None:
        if text is None:
            if parameters is not None:
                raise ValueError("there are parameters, but no filter")
            return
        address = _p()
        _check(_library.omendb_filter_compile(db._pointer, _json(text), ctypes.byref(address)))
        self._db, self._address = db, address.value
        db._children.add(self)
        try:
            self._bind_all(() if parameters is None else parameters)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> _Filter:
        return self

    def close(self) -> None:
        _library.omendb_filter_free(self._take())

    def _bind_all(self, parameters: Parameters) -> None:
        if isinstance(parameters, Mapping):
            self._check_count(len(parameters))
            for name, value in parameters.items():
                index = _library.omendb_filter_parameter(self._pointer, _utf8(name))
                if index == 0:
                    raise ValueError(f"the filter has no parameter {name!r}")
                self._bind(index, value)
        elif isinstance(parameters, (str, bytes)):
            raise TypeError("parameters are a sequence or a dict")
        else:
            values = list(parameters)
            self._check_count(len(values))
            for index, value in enumerate(values, 1):
                self._bind(index, value)

    def _check_count(self, given: int) -> None:
        count = _library.omendb_filter_parameter_count(self._pointer)
        if given != count:
            raise ValueError(
                f"the filter has {count} parameter{'' if count == 1 else 's'}, {given} given")

    def _bind(self, index: int, value: Any) -> None:
        if value is None:
            kind, values = "null", ()
        elif isinstance(value, (bool, np.bool_)):
            kind, values = "bool", (bool(value),)
        elif isinstance(value, numbers.Integral) and -(2**63) <= value < 2**64:
            kind, values = "i64" if value < 2**63 else "u64", (int(value),)
        elif isinstance(value, numbers.Real):
            kind, values = "f64", (float(value),)
        elif isinstance(value, str):
            kind, values = "text", (_utf8(value),)
        else:
            kind, values = "texts", _names(value)
        _check(getattr(_library, f"omendb_filter_bind_{kind}")(self._pointer, index, *values))


def _utf8(text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} is no text")
    encoded = text.encode()
    if b"\0" in encoded:
        raise ValueError(f"a NUL character in {text!r}")
    return encoded


def _json(value: Union[Mapping[str, Any], str]) -> bytes:
    return _utf8(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _metadata(fields: Metadata) -> bytes:
    """Metadata as JSON. What JSON has no value for is refused by the name of its field."""
    if isinstance(fields, str):
        return _utf8(fields)
    try:
        return _utf8(_strict_json(fields))
    except (TypeError, ValueError):
        for name, value in fields.items() if isinstance(fields, Mapping) else ():
            try:
                _strict_json(value)
            except TypeError as error:
                raise TypeError(f"metadata field {name!r}: {error}") from None
            except ValueError:
                raise _error(_INVALID, f"metadata field {name!r}: {value!r} is no JSON") from None
        raise


def _strict_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    """What numpy has in place of a plain value; a span of time, its kind of whole number, is none."""
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer) and not isinstance(value, np.timedelta64):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "U":
        return value.tolist()
    raise TypeError(f"{value!r} is none of texts, numbers, booleans, None and lists of texts")


def _has_keys(records: Records) -> bool:
    if isinstance(records, (str, np.ndarray, range)):
        return isinstance(records, str)
    return isinstance(records, collections.abc.Collection) and any(
        isinstance(record, str) for record in records)


def _names(names: Optional[Iterable[str]]) -> Tuple[Any, int]:
    """An array of texts and their number; of None, no array, which stands for all."""
    if names is None:
        return None, 0
    if isinstance(names, (str, bytes)):
        raise TypeError(f"{names!r} is one text: a sequence of texts is needed")
    encoded = [_utf8(name) for name in names]
    return (_text * max(1, len(encoded)))(*encoded), len(encoded)


def _copied(call: Callable[..., int], *arguments: Any) -> str:
    """The text that a call copies into a buffer, which is made larger until it is enough."""
    size = _size(1024)
    while True:
        buffer = ctypes.create_string_buffer(size.value + 1)
        code = call(*arguments, buffer, len(buffer), ctypes.byref(size))
        if code != _TOO_BIG:
            _check(code)
            return buffer.value.decode()


def _columns_of(records: Iterable[Mapping[str, Any]], dim: int) -> Tuple[Any, Any, List, List]:
    """Vectors, ids, keys and metadata of records that are given as dicts."""
    records = list(records)
    for record in records:
        unknown = set(record) - {"vector", "id", "key", "metadata"}
        if unknown or "vector" not in record:
            raise ValueError(f"a record with {', '.join(map(repr, record))}; it has 'vector', and "
                             "may have 'id', 'key' and 'metadata'")
    ids = [record["id"] for record in records if record.get("id") is not None]
    if len(ids) not in (0, len(records)):
        raise ValueError(f"{len(ids)} of {len(records)} records have an id: all, or none")
    vectors = np.array([record["vector"] for record in records]) if records else np.empty((0, dim))
    return (vectors, ids or None, [record.get("key") for record in records],
            [record.get("metadata") for record in records])


def _record_array(
    array: np.ndarray, vector_type: int, ids: Optional[np.ndarray], keys: Optional[Sequence],
    metadata: Optional[Sequence],
) -> Any:
    """The structures that say the same as these columns; they borrow the vectors of `array`."""
    for what, column in (("keys", keys), ("metadata", metadata)):
        if isinstance(column, (str, Mapping)):
            raise TypeError(f"{what}: of several vectors a sequence is needed, one for each")
        if column is not None and len(column) != len(array):
            raise ValueError(f"{len(column)} {what} for {len(array)} vectors")
    records = (_Record * max(1, len(array)))()
    for i, record in enumerate(records[:len(array)]):
        record.struct_size, record.vector_type = ctypes.sizeof(_Record), vector_type
        record.id = AUTO if ids is None else int(ids[i])
        record.vector = array.ctypes.data + i * array.strides[0]
        if keys is not None and keys[i] is not None:
            record.key = _utf8(keys[i])
        if metadata is not None and metadata[i] is not None:
            record.metadata = _metadata(metadata[i])
    return records


def _value(facet: _Facet) -> Any:
    """A value of metadata, as json.loads gives it."""
    if facet.type == 4:
        return ctypes.string_at(facet.text, facet.text_size).decode()
    return bool(facet.i64) if facet.type == 1 else facet.i64 if facet.type == 2 else facet.f64


def _microseconds(seconds: float) -> int:
    """Of a timeout: at least 1, as 0 means never; what is too long for the library means never."""
    if not seconds >= 0:
        raise ValueError(f"a timeout of {seconds} seconds")
    return max(1, int(seconds * 1e6)) if seconds < 1e12 else 0


def _one_id(record: Any) -> int:
    number = operator.index(record)
    if not 0 <= number < AUTO:
        raise ValueError(f"{number} is no id; ids are 0 to {AUTO - 1}")
    return number


def _id_array(ids: Ids) -> np.ndarray:
    array = np.asarray(ids)
    if array.size == 0:
        return np.empty(0, np.uint64)
    if array.ndim > 1 or array.dtype.kind not in "iu":
        raise ValueError("ids are whole numbers from 0, in one dimension")
    if array.dtype.kind == "i" and array.min() < 0:
        raise ValueError("ids are not negative")
    return np.ascontiguousarray(array.reshape(-1), np.uint64)
