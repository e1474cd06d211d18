#!/usr/bin/env python3
"""The shell as scripts and people use it. Standard library only; the last line is "N passed, M failed".

BUILD is the folder with `omendb` (build), RUNNER is put before it, OMENDB_TEST_DIRECTORY is an empty
folder to work in. An argument is a part of the names of the tests to run.
"""

import fcntl
import json
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("BUILD", ROOT / "build"))
SHELL = shlex.split(os.environ.get("RUNNER", "")) + [str(BUILD.resolve() / "omendb")]
TESTS = []


def test(function):
    TESTS.append(function)
    return function


class Result:
    def __init__(self, process):
        self.status = process.returncode
        self.out = process.stdout.decode()
        self.err = process.stderr.decode()

    @property
    def json(self):
        return json.loads(self.out)


def run(*arguments, status=0, text=None, warning=None):
    """Runs the shell; fails unless it exits with `status`, says why in one place only, and warns of
    what holds `warning` and of nothing else."""
    process = subprocess.run(
        SHELL + [str(argument) for argument in arguments], capture_output=True, timeout=120,
        input=b"" if text is None else text.encode(), check=False)
    result = Result(process)
    assert result.status == status, f"{arguments}: status {result.status}: {result.err}{result.out}"
    if warning is not None:
        assert result.err.startswith("omendb: warning: ") and result.err.count("\n") == 1, result.err
        assert warning in result.err, result.err
    elif status == 0 or "--json" in arguments:
        assert result.err == "", f"{arguments}: {result.err}"
    else:
        assert result.err.startswith("omendb: ") and result.err.count("\n") == 1, result.err
    return result


def write(name, data):
    path = pathlib.Path(name)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def vectors(count, dim, seed=1):
    source = random.Random(seed)
    return [[source.randrange(-100, 100) / 8 for _ in range(dim)] for _ in range(count)]


def pack(rows, element):
    return b"".join(struct.pack(f"<{len(row)}{element}", *row) for row in rows)


def npy(rows, descr, element):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({len(rows)}, {len(rows[0])}), }}"
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + pack(rows, element)


def vecs(rows, element):
    return b"".join(struct.pack("<i", len(row)) + pack([row], element) for row in rows)


def fbin(rows, element):
    return struct.pack("<2I", len(rows), len(rows[0])) + pack(rows, element)


def csv(rows, first=0):
    return "".join(f"{first + i},{','.join(map(repr, row))}\n" for i, row in enumerate(rows))


def nearest(rows, query, k):
    distances = [(sum((a - b) ** 2 for a, b in zip(row, query)), i) for i, row in enumerate(rows)]
    return [i for _, i in sorted(distances)[:k]]


def found(*arguments):
    return [hit["id"] for hit in run(*arguments, "--json").json["hits"]]


@test
def help_and_version_are_printed():
    assert "import FILE" in run("--help").out
    assert run("--help").out == run("help").out == run("db", "help").out == run("db", "-h").out
    assert run("--version").out.startswith("omendb ")
    assert set(run("--version", "--json").json) == {"version", "format_version", "kernels"}


@test
def a_wrong_command_line_exits_with_2_and_makes_nothing():
    for words in (
        [], ["db"], ["db", "frobnicate"], ["db", "import"], ["db", "info", "more"], ["--what"],
        [":memory:", "info"], [":memory:", "import", "a.csv"],
        ["db", "info", "--put"], ["db", "import", "a.csv", "--metric", "l3"], ["db", "search"],
        ["db", "import", "a.csv", "--batch", "0"],
        ["db", "import", "a.csv", "--limit"], ["db", "import", "a.csv", "--m", "1e3"],
        ["db", "search", "--id", "1", "--vector", "[1]"], ["db", "search", "--id", "-1"],
        ["db", "search", "--id", "1", "--row", "2"], ["db", "get", "x"], ["db", "drop"],
        ["db", "get"], ["db", "get", "1", "--key", "a"], ["db", "delete"],
        ["db", "delete", "--key", "a", "--filter", "a = 1"], ["db", "put", "1", "[1]", "--filter", "a"],
        ["db", "search", "--id", "1", "--key", "a"], ["db", "import", "a.csv", "--metadata", "{}"],
        ["db", "search", "--unlike", "1"], ["db", "search", "--like", "1", "--id", "1"],
        ["db", "search", "--id", "1", "--group-size", "2"],
        ["db", "search", "--id", "1", "--pages", "0"], ["db", "search", "--file", "a", "--pages", "1"],
        ["db", "search", "--id", "1", "--pages", "1", "--group-by", "a"],
        ["db", "search", "--id", "1", "--pages", "1", "--explain"],
        ["db", "update"], ["db", "update", "{}"], ["db", "update", "1", "{}", "--key", "a"],
        ["db", "update", "a", "{}"], ["db", "update", "1", "{}", "{}"],
        ["db", "facets"], ["db", "facets", "a", "b"], ["db", "facets", "a", "--limit", "0"],
        ["db", "limit"], ["db", "limit", "--records", "-1"], ["db", "limits", "--records", "1"],
        ["db", "declare"], ["db", "declare", "a:int"], ["db", "declare", "a"], ["db", "declare", ":i64"],
        ["db", "declare", "a:i64!!"], ["db", "declare", "a:i64", "--none"],
        ["db", "declare", "--strict", "--none"], ["db", "declare", "x" * 256 + ":i64"],
        ["db", "get", "18446744073709551615"], ["db", "import", "a.csv", "--scale=0"],
    ):
        run(*words, status=2)
        assert not os.path.exists("db"), words
    assert run("db", "frobnicate", "--json", status=2).json["code"] == "usage"
    wrong = run("db", "import", "a.csv", "--metric", "l3", "--json", status=2).json
    assert "no 'l3'; there are l2 cosine ip hamming" in json.dumps(wrong)
    wrong = run("db", "import", "a.csv", "--type", "f8", "--json", status=2).json
    assert "no 'f8'; there are f32 f16 bf16 i8 u8 b1" in json.dumps(wrong)


@test
def csv_is_imported_searched_and_shown():
    rows = vectors(200, 5)
    write("a.csv", "id,a,b,c,d,e\n" + csv(rows))
    result = run("db", "import", "a.csv", "--batch", "64")
    assert "imported 200 rows of 5 x f32 into default" in result.out
    for i in (0, 7, 199):
        text = json.dumps(rows[i])
        assert found("db", "search", "--vector", text, "-k3", "--exact") == nearest(rows, rows[i], 3)
        assert found("db", "search", "--vector", text, "-k", "1") == [i]
        assert i not in found("db", "search", "--id", i, "-k", "200")
    table = run("db", "search", "--vector", json.dumps(rows[3]), "--explain").out.splitlines()
    assert table[0].split() == ["rank", "id", "distance"]
    assert table[1].split() == ["1", "3", "0"] and table[11].startswith("10 hits in ")
    assert run("db", "get", "3").out == f"3  [{', '.join(f'{x:g}' for x in rows[3])}]\n"
    assert run("db", "get", "3", "4", "--json").json == [
        {"id": 3, "vector": rows[3]}, {"id": 4, "vector": rows[4]}]
    run("db", "search", "--vector", "[1, 2", status=2)
    assert "has 2 elements" in run("db", "search", "--vector", "[1, 2]", status=1).err
    assert run("db", "search", "--vector", "[1e9,0,0,0,0]", "--radius", "1", "--json").json["hits"] == []
    assert "one by one" in "".join(table) and "walked" not in "".join(table), table
    explain = run("db", "search", "--id", "1", "--explain", "--json").json["explain"]
    assert explain["distances"] > 0
    run("db", "optimize")
    many = run("db", "search", "--vector", json.dumps(rows[3]), "--explain").out
    assert ("walked a graph" in many) != ("one by one" in many), many
    explain = run("db", "search", "--id", "1", "--recall", "0.95", "--explain", "--json").json["explain"]
    assert explain["recall"] >= 0.95 and explain["warnings"] == 0


@test
def every_binary_format_gives_the_same_answers():
    rows = vectors(120, 7)
    whole = [[int(8 * x) for x in row] for row in rows]
    bytes_ = [[x + 100 for x in row] for row in whole]
    files = {
        "f4.npy": (npy(rows, "<f4", "f"), rows, "f32"), "f2.npy": (npy(rows, "<f2", "e"), rows, "f16"),
        "f8.npy": (npy(rows, "<f8", "d"), rows, "f32"), "i1.npy": (npy(whole, "|i1", "b"), whole, "i8"),
        "u1.npy": (npy(bytes_, "|u1", "B"), bytes_, "u8"), "a.fvecs": (vecs(rows, "f"), rows, "f32"),
        "a.bvecs": (vecs(bytes_, "B"), bytes_, "u8"), "a.fbin": (fbin(rows, "f"), rows, "f32"),
        "a.u8bin": (fbin(bytes_, "B"), bytes_, "u8"), "a.i8bin": (fbin(whole, "b"), whole, "i8"),
    }
    for name, (data, values, scalar) in files.items():
        write(name, data)
        run("db", "import", name, "--collection", name)
        assert run("db", "get", "5", "--collection", name, "--json").json["vector"] == values[5], name
        where = ["--collection", name, "-k", "4", "--exact"]
        assert found("db", "search", "--vector", json.dumps(values[9]), *where) == nearest(
            values, values[9], 4), name
        lines = run("db", "search", "--file", name, *where, "--limit", "30", "--json").out.splitlines()
        hits = [json.loads(line) for line in lines]
        assert [line["row"] for line in hits] == list(range(30))
        for line in hits:
            assert [hit["id"] for hit in line["hits"]] == nearest(values, values[line["row"]], 4), name
        assert found("db", "search", "--file", name, "--row", "119", *where)[0] == 119
    schemas = {c["name"]: c for c in run("db", "collections", "--json").json}
    assert {name: schemas[name]["type"] for name in files} == {n: f[2] for n, f in files.items()}
    assert run("db", "search", "--file", "a.fbin", "--row", "120", "--collection", "a.fbin",
               status=1).err.endswith("there is no row 120\n")


@test
def options_of_a_new_collection_are_kept():
    write("a.csv", csv(vectors(50, 6)))
    run("db", "import", "a.csv", "--metric=cosine", "--type", "i8", "--scale", "10", "--m", "8",
        "--ef-construction", "40", "--optimize")
    stored = run("db", "info", "--json").json["collections"][0]
    assert (stored["metric"], stored["type"], stored["scale"]) == ("cosine", "i8", 10)
    assert (stored["M"], stored["ef_construction"], stored["records"]) == (8, 40, 50)
    for option in (["--metric", "l2"], ["--type", "f32"], ["--scale", "3"], ["--m", "9"]):
        error = run("db", "import", "a.csv", "--put", *option, "--json", status=1).json
        assert error["code"] == "mismatch" and option[0] in error["error"]
    write("wide.csv", "1,2,3\n")
    assert "rows of 2 elements" in run("db", "import", "wide.csv", status=1).err


@test
def bits_are_imported_as_elements_and_packed():
    write("bits.csv", "1,1,0,0,0,0,0,0,0\n2,1,1,1,0,0,0,0,0\n3,1,1,1,1,1,1,1,1\n")
    run("db", "import", "bits.csv", "--metric", "hamming", "--collection", "elements")
    write("bits.u8bin", fbin([[0x01], [0x07], [0xFF]], "B"))
    run("db", "import", "bits.u8bin", "--packed", "--ids-from", "1", "--collection", "packed")
    for name in ("elements", "packed"):
        hits = run("db", "search", "--id", "1", "--json", "--collection", name).json["hits"]
        assert hits == [{"id": 2, "distance": 2}, {"id": 3, "distance": 7}], hits
        assert run("db", "get", "2", "--json", "--collection", name).json["vector"] == [1, 1, 1] + 5 * [0]
    lines = run("db", "search", "--file", "bits.u8bin", "--packed", "-k", "1", "--collection", "packed",
                "--json").out.splitlines()
    assert [json.loads(line)["hits"][0]["id"] for line in lines] == [1, 2, 3]


@test
def ids_come_from_the_file_the_option_or_the_library():
    rows = vectors(10, 3)
    write("a.fvecs", vecs(rows, "f"))
    run("db", "import", "a.fvecs", "--ids-from", "1000", "--limit", "4", "--skip", "2")
    assert run("db", "get", "1000", "--json").json["vector"] == rows[2]
    run("db", "import", "a.fvecs", "--limit", "1")
    assert run("db", "get", "1004", "--json").json["vector"] == rows[0]
    error = run("db", "import", "a.fvecs", "--ids-from", "1003", status=1).err
    assert "--put" in error and "Nothing was stored" in error
    run("db", "import", "a.fvecs", "--ids-from", "1000", "--put")
    assert run("db", "get", "1000", "--json").json["vector"] == rows[0]
    run("db", "import", "a.fvecs", "--put", status=2)
    assert "past the largest" in run(
        "db", "import", "a.fvecs", "--ids-from", "18446744073709551610", status=1).err
    assert "only 10 rows" in run("db", "import", "a.fvecs", "--skip", "11", status=1).err


@test
def an_import_that_stops_says_how_to_go_on():
    rows = vectors(30, 3)
    good = csv(rows).splitlines(keepends=True)
    write("a.csv", "".join(good[:25]) + "25,oops,1,1\n" + "".join(good[26:]))
    error = run("db", "import", "a.csv", "--batch", "10", "--json", status=1).json
    assert error["code"] == "invalid"
    assert "a.csv: line 26: column 2: 'oops'" in error["error"]
    assert "20 rows were stored; --skip 20 goes on" in error["error"]
    write("a.csv", "".join(good))
    run("db", "import", "a.csv", "--skip", "20")
    assert run("db", "info", "--json").json["records"] == 30
    write("nan.fvecs", vecs([[1, 2, 3], [1, float("nan"), 3]], "f"))
    error = run("db", "import", "nan.fvecs", status=1).err
    assert "nan.fvecs: in rows 0 to 1: row 1" in error, error


@test
def the_collection_need_not_be_named_when_it_is_clear():
    write("a.csv", "1,1,2\n")
    run("db", "import", "a.csv", "--collection", "one")
    run("db", "get", "1")
    run("db", "import", "a.csv", "--collection", "two")
    error = run("db", "get", "1", status=1).err
    assert "one" in error and "two" in error and "--collection" in error
    error = run("db", "import", "a.csv", "--json", status=1).json
    assert error["code"] == "not found"
    run("db", "import", "a.csv", "--collection", "default")
    run("db", "get", "1")
    assert [c["name"] for c in run("db", "collections", "--json").json] == ["default", "one", "two"]
    run("db", "drop", "one")
    run("db", "drop", "one", status=1)
    assert "two" in run("db", "collections").out and "one" not in run("db", "collections").out


@test
def deleting_tells_what_was_there():
    write("a.csv", csv(vectors(10, 3)))
    run("db", "import", "a.csv")
    assert run("db", "delete", "3", "4", "77", "--json").json == {"deleted": 2, "missing": 1}
    assert 3 not in found("db", "search", "--id", "5", "-k", "50")
    assert run("db", "get", "3", "--json", status=1).json["code"] == "not found"
    run("db", "search", "--id", "3", status=1)


@test
def an_export_is_imported_again_without_loss():
    source = random.Random(3)
    rows = [[struct.unpack("<f", struct.pack("<f", source.gauss(0, 10 ** source.randrange(-20, 18))))[0]
             for _ in range(4)] for _ in range(300)]
    write("a.fvecs", vecs(rows, "f"))
    run("db", "import", "a.fvecs", "--ids-from", "5")
    for name in ("out.csv", "out.jsonl"):
        run("db", "export", name)
        assert "exists" in run("db", "export", name, status=1).err
        run(name + ".omen", "import", name)
        for i in (0, 17, 299):
            again = run(name + ".omen", "get", i + 5, "--json").json["vector"]
            assert struct.pack("<4f", *again) == struct.pack("<4f", *rows[i])
    assert run("db", "export", "-", "--format", "csv", "--limit", "1").out.count("\n") == 2
    run("db", "export", "a.txt", status=1)


@test
def keys_and_metadata_of_jsonl_are_imported():
    fill_with_fields()
    run("db", "export", "all.jsonl")
    assert run("copy", "import", "all.jsonl").out.startswith("imported 5 rows of 2 x f32")
    run("copy", "export", "again.jsonl")
    assert pathlib.Path("again.jsonl").read_text() == pathlib.Path("all.jsonl").read_text()

    write("keys.jsonl", r'{"vector": [1, 2], "key": "\u00e4\ud83d\ude00\/\"", "metadata": null}' "\n"
          '{"metadata": {"n": 1} , "key": null, "other": [{"key": 1}], "vector": [3, 4]}\n')
    run("keys", "import", "keys.jsonl")
    assert run("keys", "get", "0", "--json").json["key"] == '\u00e4\U0001f600/"'
    assert run("keys", "get", "1", "--json").json["metadata"] == {"n": 1}
    assert "exists" in run("keys", "import", "keys.jsonl", "--json", status=1).json["code"]
    refused = run("keys", "import", "keys.jsonl", "--put", status=1)
    assert "row 1 has none" in refused.err, refused.err
    write("put.jsonl", '{"vector": [5, 6], "key": "b"}\n{"vector": [7, 8], "key": "c"}\n')
    for _ in range(2):
        run("keys", "import", "put.jsonl", "--put")
    assert run("keys", "count").out == "4\n"


@test
def keys_and_metadata_that_are_none_are_refused_with_their_line():
    for text, wrong in (
            ('"key": 1', '"key" is no text'),
            ('"key": "a", "key": "b"', 'the key "key" twice'),
            (r'"key": "a\u0000b"', '"key" has a NUL'),
            (r'"key": "\ud83d"', "UTF-8"),
            ('"metadata": []', '"metadata" is no object'),
            ('"metadata": {"a": {}}', "metadata: byte 6"),
            ('"metadata": {"a" 1}', "no colon")):
        write("bad.jsonl", '{"vector": [1, 2], ' + text + "}\n")
        refused = run("bad", "import", "bad.jsonl", status=1)
        assert wrong in refused.err and "Nothing was stored" in refused.err, refused.err
        assert not os.path.exists("bad")


@test
def an_export_to_npy_is_imported_again_with_its_ids():
    rows = vectors(40, 3)
    write("a.csv", csv(rows, first=7))
    run("db", "import", "a.csv")
    assert "the ids are not in it; --ids" in run("db", "export", "lost.npy").out
    assert run("db", "export", "lost2.npy", "--json").json == {"exported": 40, "has_ids": False}
    run("db", "export", "out.npy", "--ids", "ids.npy", "--limit", "30")
    data = pathlib.Path("out.npy").read_bytes()
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (30, 3), }".ljust(117) + "\n"
    assert data[:128] == b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode()
    assert data[128:] == pack(rows[:30], "f")
    assert pathlib.Path("ids.npy").read_bytes()[128:] == struct.pack("<30Q", *range(7, 37))
    run("again", "import", "out.npy", "--ids", "ids.npy", "--batch", "8")
    assert run("again", "get", "36", "--json").json["vector"] == rows[29]
    assert run("again", "export", "-", "--format", "csv").out == run(
        "db", "export", "-", "--format", "csv", "--limit", "30").out
    assert "the ids" not in run("again", "export", "all.npy", "--ids", "all-ids.npy").out
    run("zero", "import", "out.npy")
    assert "the ids" not in run("zero", "export", "zero.npy").out
    piped = subprocess.run(
        SHELL + ["zero", "export", "-", "--format", "npy"], capture_output=True, check=True)
    assert piped.stdout == data


@test
def an_export_of_ids_writes_over_nothing_and_leaves_nothing():
    write("a.csv", csv(vectors(4, 3)))
    run("db", "import", "a.csv")
    write("ids.npy", "mine")
    assert "ids.npy" in run("db", "export", "out.npy", "--ids", "ids.npy", status=1).err
    assert not os.path.exists("out.npy") and pathlib.Path("ids.npy").read_text() == "mine"
    run("db", "export", "out.csv", "--ids", "new.npy", status=2)
    run("db", "export", "out.npy", "--ids", "-", status=2)
    assert not os.path.exists("out.csv") and not os.path.exists("out.npy")


def npy_ids(ids, descr="<i8", element="q"):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({len(ids)},), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + pack([ids], element)


@test
def ids_come_from_a_npy():
    rows = vectors(6, 3)
    write("a.fvecs", vecs(rows, "f"))
    for descr, element, last in (("<i8", "q", 2**63 - 1), ("<u8", "Q", 2**64 - 2), ("<i4", "i", 2**31 - 1)):
        write("ids.npy", npy_ids([3, 1, 4, 15, 9, last], descr, element))
        run("db", "import", "a.fvecs", "--ids", "ids.npy", "--collection", element, "--skip", "1")
        got = run("db", "get", "1", "9", str(last), "--collection", element, "--json").json
        assert [record["vector"] for record in got] == [rows[1], rows[4], rows[5]]
        assert run("db", "count", "--collection", element).out == "5\n"
    run("db", "import", "a.fvecs", "--ids", "ids.npy", "--collection", "q", "--put", "--limit", "1")
    for data, words in (
        (npy_ids([3, 1, 4, -15, 9, 2]), "row 3: -15 is no id"),
        (npy_ids([3, 1, 4, 15, 9, 2**64 - 1], "<u8", "Q"), "is no id"),
        (npy_ids([3, 1]), "ids.npy has 2 ids, a.fvecs 6 rows"),
        (npy_ids([3.0] * 6, "<f8", "d"), "ids of type '<f8'"),
        (npy(vectors(6, 2), "<f4", "f"), "ids of type '<f4'"),
        (npy([[1, 2]] * 6, "<i8", "q"), "reshape"),
    ):
        write("ids.npy", data)
        error = run("new", "import", "a.fvecs", "--ids", "ids.npy", status=1).err
        assert words in error and "Nothing was stored" in error, error
        assert not os.path.exists("new")
    write("ids.npy", npy_ids([1, 2]))
    error = run("new", "import", "-", "--format", "csv", "--ids", "ids.npy", text=csv(rows), status=1).err
    assert "has only 2 ids" in error and not os.path.exists("new"), error
    run("db", "import", "a.fvecs", "--ids", "ids.npy", "--ids-from", "5", status=2)


@test
def whole_numbers_of_npy_become_floats_when_they_fit():
    rows = [[0, -1, 2**24], [-(2**24), 2**40, 5]]
    for descr, element, values in (
        ("<i8", "q", rows), ("<u8", "Q", [[abs(x) for x in row] for row in rows]),
        ("<i4", "i", [[0, -1, 2**24], [-(2**31), 7, 5]]), ("<i2", "h", [[0, -1, 2], [-(2**15), 7, 5]]),
        ("<u2", "H", [[0, 1, 2**16 - 1], [3, 7, 5]]), ("<u4", "I", [[0, 1, 2**31], [3, 7, 5]]),
    ):
        write("a.npy", npy(values, descr, element))
        run("db", "import", "a.npy", "--collection", element)
        for i, row in enumerate(values):
            got = run("db", "get", i, "--collection", element, "--json").json["vector"]
            assert pack([got], "f") == pack([row], "f"), got
    for value in (2**24 + 1, -(2**24) - 1, 2**63 - 1):
        write("a.npy", npy([[1, 2], [3, value]], "<i8", "q"))
        error = run("db", "import", "a.npy", "--collection", "no", status=1).err
        assert f"row 1, element 1: {value} is no 32-bit float" in error and "astype" in error, error


@test
def a_failed_import_leaves_nothing_of_what_it_made():
    write("ok.csv", "1,0.5,0.25\n")
    write("kept.csv", "5,1,2,3\n")
    run("s", "import", "kept.csv", "--collection", "kept")
    before = run("s", "info", "--json").json["collections"]
    write("bad.csv", "1,0.5,0.25\n2,1\n")
    write("no-id.jsonl", '{"id": 1, "vector": [1, 2]}\n{"vector": [1, 2]}\n')
    write("text-id.jsonl", '{"id": 1, "vector": [1, 2]}\n{"id": "b", "vector": [1, 2]}\n')
    write("nan.fvecs", vecs([[1, 2], [1, float("nan")]], "f"))
    write("twice.csv", "1,2,3\n1,2,3\n")
    for name in ("bad.csv", "no-id.jsonl", "text-id.jsonl", "nan.fvecs", "twice.csv"):
        for database in ("s", "new"):
            error = run(database, "import", name, "--collection", "bad", status=1).err
            assert "Nothing was stored" in error and name in error, error
        assert not os.path.exists("new"), name
        assert [c["name"] for c in run("s", "collections", "--json").json] == ["kept"], name
    run("s", "import", "ok.csv", "--type", "i8", "--metric", "hamming", "--collection", "bad", status=1)
    run("new", "import", "ok.csv", "--type", "i8", "--metric", "hamming", status=1)
    assert not os.path.exists("new")
    os.mkdir("empty")
    run("empty", "import", "bad.csv", status=1)
    assert os.listdir("empty") == []
    run("empty", "import", "ok.csv")
    run("s", "import", "ok.csv", "--collection", "bad", "--metric", "cosine")
    run("s", "import", "nan.fvecs", "--collection", "bad", status=1)
    assert run("s", "count", "--collection", "bad").out == "1\n"
    after = run("s", "info", "--json").json["collections"]
    assert [c for c in after if c["name"] == "kept"] == before
    write("late.csv", "1,2,3\n2,2,3\n3,x,3\n")
    error = run("s", "import", "late.csv", "--collection", "late", "--batch", "2", status=1).err
    assert "2 rows were stored; --skip 2" in error
    assert run("s", "count", "--collection", "late").out == "2\n"


@test
def an_option_is_reported_as_it_was_typed():
    for words, name in ((["-k", "0"], "-k"), (["-k0"], "-k"), (["--k", "0"], "--k"), (["--k=0"], "--k")):
        error = run("db", "search", "--id", "1", *words, status=2).err
        assert error.startswith(f"omendb: {name}: '0' is no whole number from 1"), error
    assert run("db", "import", "a", "-M", "1", status=2).err.startswith("omendb: -M: ")
    assert run("db", "get", "1", "-k", "3", status=2).err.startswith("omendb: -k does not")


@test
def a_csv_header_begins_with_id():
    for header in ("id,x,y", "ID,x,y", "Id;1;2", ' "id" ,x,y'):
        write("a.csv", header + "\n" + "1,2,3\n".replace(",", ";" if ";" in header else ","))
        run(header, "import", "a.csv")
        assert run(header, "count").out == "1\n"
    for first, text in (("a,0.5,0.25", "a"), ("x7,0.5,0.25\n1,2,3", "x7"), ("key,x,y\n1,2,3", "key"),
                        ("idx,x,y\n1,2,3", "idx"), (",x,y\n1,2,3", "")):
        write("txt.csv", first + "\n")
        error = run("db", "import", "txt.csv", status=1).err
        assert f"txt.csv: line 1: column 1: '{text}' is no id" in error, error
        assert "begins with id" in error, error
    write("txt.csv", "1,2,3\nid,2,3\n")
    error = run("db", "import", "txt.csv", status=1).err
    assert "line 2: column 1: 'id' is no id" in error and "begins with" not in error, error


@test
def every_command_has_a_help_of_its_own():
    options = {
        "search": "--vector --id --key --filter --param --file --row -k --k --ef --recall --stretch --timeout --radius --exact "
                  "--explain --fields --like --unlike --group-by --group-size --pages --format --limit --packed --collection --read-only --json",
        "import": "--format --limit --packed --skip --ids --metric --type --scale --m -M --ef-construction "
                  "--ids-from --batch --put --optimize --collection --json",
        "export": "--filter --param --ids --limit --format --collection --read-only --json",
        "create": "--dim --metric --type --scale --m -M --ef-construction --ef --json",
        "calibrate": "--skip --limit --format --packed --collection --json",
        "get": "--key --fields --collection --read-only --json",
        "count": "--filter --param --collection --read-only --json",
        "info": "--collection --read-only --json", "update": "--key --collection --json", "put": "--key --metadata --collection --json",
        "delete": "--key --filter --param --collection --json", "collections": "--read-only --json", "drop": "--json",
        "optimize": "--json", "purge": "--json", "check": "--read-only --json", "backup": "--json",
        "salvage": "--json", "prepared": "--read-only --json", "commit": "--json", "rollback": "--json",
        "forget": "--json", "facets": "--limit --filter --param --collection --read-only --json",
        "limits": "--collection --read-only --json", "fields": "--collection --read-only --json",
        "limit": "--records --bytes --queries-per-second --writes-per-second --collection --json",
        "declare": "--strict --none --collection --json",
    }
    overview = run("--help").out
    for name, words in options.items():
        out = run("db", name, "--help").out
        assert out == run("db", "help", name).out == run(name, "--help").out == run("db", name, "-h").out
        assert out.startswith(f"omendb DB {name}") and f"\n  {name} " in overview, name
        named = set(out.replace(",", " ").replace(":", " ").replace(";", " ").split())
        assert set(words.split()) <= named, (name, set(words.split()) - named)
        assert ("Only reads" in out) == ("--read-only" in words) != ("Writes:" in out), name
        assert all(len(line) <= 96 for line in out.splitlines()), name
        assert run("help", name).out == out, name
    run("db", "help", "frobnicate", status=2)
    run("help", "frobnicate", status=2)
    run("help", "get", "1", status=2)
    assert not os.path.exists("db")


@test
def the_language_of_filters_is_explained():
    out = run("help", "filters").out
    assert run("db", "help", "filters").out == out and "omendb help filters" in run("--help").out
    assert '"omendb help filters"' in run("search", "--help").out
    assert all(len(line) <= 96 for line in out.splitlines()), out
    examples = [line.strip() for line in out.splitlines()[2:4]]
    run("db", "create", "docs", "--dim", "2")
    run("db", "put", "1", "[1, 2]", "--metadata",
        '{"section": "editors", "size": 5, "tags": ["c"], "essential": false}')
    for example in examples:
        assert run("db", "count", "--filter", example).out == "1\n", example


@test
def only_commands_that_read_take_read_only():
    write("a.csv", csv(vectors(10, 3)))
    run("db", "import", "a.csv")
    for words in (["search", "--id", "1"], ["get", "1"], ["count"], ["export", "-", "--format", "csv"],
                  ["facets", "lang"], ["info"], ["collections"], ["limits"], ["fields"], ["prepared"],
                  ["check"]):
        run("db", *words, "--read-only")
    for words in (["import", "a.csv"], ["put", "1", "[1,2,3]"], ["update", "1", "{}"], ["delete", "1"], ["drop", "default"],
                  ["create", "new", "--dim", "3"], ["optimize"], ["purge"],
                  ["limit", "--records", "5"], ["declare", "a:i64"],
                  ["calibrate", "a.csv"], ["backup", "copy"],
                  ["salvage", "copy"], ["commit", "one"], ["rollback", "one"], ["forget", "one"]):
        error = run("db", *words, "--read-only", status=2).err
        assert f"{words[0]} writes" in error and "search, get, count" in error, error
    assert run("db", "count").out == "10\n"


@test
def collections_are_created_filled_and_counted_by_hand():
    assert "created docs: vectors of 3 x i8, cosine" in run(
        "db", "create", "docs", "--dim", "3", "--metric", "cosine", "--type", "i8", "--scale", "10", "--ef",
        "77").out
    stored = run("db", "info", "--json").json["collections"][0]
    assert (stored["name"], stored["dim"], stored["ef"], stored["scale"]) == ("docs", 3, 77, 10)
    assert run("db", "create", "docs", "--dim", "3", "--json", status=1).json["code"] == "exists"
    made = {"created": "bits", "dim": 12, "metric": "hamming", "type": "b1"}
    assert run("db", "create", "bits", "--dim", "12", "--type", "b1", "--json").json == made
    run("db", "create", "plain", status=2)
    run("db", "create", "plain", "--dim", "0", status=2)
    run("new", "create", "plain", "--dim", "3", "--metric", "hamming", "--type", "f32", status=1)
    assert not os.path.exists("new")
    run("db", "drop", "bits")
    assert run("db", "count").out == "0\n"
    assert run("db", "put", "7", "[1, -2, 3.5]").out == "stored 7 in docs\n"
    assert run("db", "put", "[4, 5, 6]", "--json").json == {"collection": "docs", "id": 8, "clamped": 0}
    run("db", "put", "7", "[1, 2, 3]")
    assert run("db", "get", "7", "--json").json["vector"] == [1, 2, 3]
    assert run("db", "count", "--json").json == {"collection": "docs", "records": 2}
    assert "has 2 elements" in run("db", "put", "7", "[1, 2]", status=1).err
    run("db", "put", "x", "[1, 2, 3]", status=2)
    run("db", "put", "7", "1, 2, 3", status=2)
    run("missing", "put", "7", "[1, 2, 3]", status=1)
    run("missing", "count", status=1)
    assert not os.path.exists("missing")


@test
def clamped_values_are_counted():
    write("a.csv", "1,0,255,300\n2,-1,255.4,3\n3,-0.5,255.5,7\n")
    assert "3 of 9 values are outside of 0..255 (u8, scale 1)" in run(
        "db", "import", "a.csv", "--type", "u8", "--collection", "u8",
        warning="3 of 9 values are outside of 0..255 (u8, scale 1) and were clamped").err
    assert run("db", "get", "1", "2", "--collection", "u8", "--json").json == [
        {"id": 1, "vector": [0, 255, 255]}, {"id": 2, "vector": [0, 255, 3]}]
    assert run("db", "import", "a.csv", "--type", "i8", "--scale", "0.5", "--collection", "i8",
               "--json").json["clamped"] == 4  # those above 127.5
    assert run("db", "import", "a.csv", "--collection", "f32", "--json").json["clamped"] == 0
    for descr, element, value in (("<f2", "e", 256.0), ("<f8", "d", 256.0), ("|i1", "b", -1)):
        write("a.npy", npy([[value, 3]], descr, element))
        run("db", "import", "a.npy", "--type", "u8", "--collection", element, warning="1 of 2 values")
    write("b.npy", npy([[255, 3]], "|u1", "B"))
    run("db", "import", "b.npy", "--type", "u8", "--scale", "9", "--collection", "B")
    run("db", "put", "1", "[1, 2, 1000]", "--collection", "u8", warning="1 of 3 values")
    run("db", "put", "1", "[1, 2, 100]", "--collection", "u8")


@test
def getting_shows_what_is_there_and_names_what_is_not():
    write("a.csv", "1,1,2\n2,3,4\n")
    run("db", "import", "a.csv")
    result = run("db", "get", "999", "1", "998", "2", status=1)
    assert result.out == "1  [1, 2]\n2  [3, 4]\n"
    assert result.err == "omendb: collection default has no 999, 998\n", result.err
    got = run("db", "get", "1", "999", "2", "--json", status=1).json
    assert got[0] == {"id": 1, "vector": [1, 2]} and got[2] == {"id": 2, "vector": [3, 4]}
    assert (got[1]["id"], got[1]["code"]) == (999, "not found") and "999" in got[1]["error"]
    many = run("db", "get", *range(10, 30), status=1)
    assert many.out == "" and many.err.endswith("17, ...\n"), many.err


def fill_with_fields():
    run("db", "create", "docs", "--dim", "2")
    for i, (key, metadata) in enumerate((
        ("a", '{"lang": "en", "year": 2019}'), ("b ü", '{"year": 2020, "lang": "de"}'),
        ("c", None), (None, '{"lang": "en", "tags": ["x", "y"]}'), (None, None),
    )):
        words = (["--key", key] if key else []) + (["--metadata", metadata] if metadata else [])
        run("db", "put", str(i), f"[{i}, 0]", *words)


@test
def keys_and_metadata_are_put_and_shown():
    fill_with_fields()
    assert run("db", "get", "0", "2", "3", "4").out == (
        '0  [0, 0]  a  {"lang":"en","year":2019}\n2  [2, 0]  c\n'
        '3  [3, 0]  {"lang":"en","tags":["x","y"]}\n4  [4, 0]\n')
    assert run("db", "get", "--key", "b ü", "--json").json == {
        "id": 1, "vector": [1, 0], "key": "b ü", "metadata": {"lang": "de", "year": 2020}}
    assert run("db", "get", "4", "--json").json == {"id": 4, "vector": [4, 0]}
    assert run("db", "get", "--key", "d", "--json", status=1).json["code"] == "not found"
    hits = run("db", "search", "--key", "c", "-k", "2", "--json").json["hits"]
    assert hits == [
        {"id": 1, "distance": 1, "key": "b ü", "metadata": {"lang": "de", "year": 2020}},
        {"id": 3, "distance": 1, "metadata": {"lang": "en", "tags": ["x", "y"]}}], hits
    table = run("db", "search", "--vector", "[0, 0]", "-k", "2").out.splitlines()
    assert table[0].split() == ["rank", "id", "distance", "key", "metadata"], table
    assert table[2].split()[3:5] == ["b", "ü"] and '"year":2020' in table[2], table
    assert run("db", "put", "[9, 9]", "--key", "c", "--json").json["id"] == 2
    assert run("db", "get", "2").out == "2  [9, 9]  c\n"
    run("db", "put", "[9, 9]", "--key", "", status=1)
    assert "byte" in run("db", "put", "[9, 9]", "--metadata", "{", status=1).err
    long = json.dumps({"text": "a" * 10000})
    run("db", "put", "0", "[0, 0]", "--metadata", long)
    assert run("db", "get", "0", "--json").json == {
        "id": 0, "vector": [0, 0], "metadata": json.loads(long)}
    assert run("db", "delete", "--key", "c").out == "deleted 1 of 1 from docs\n"
    assert run("db", "delete", "--key", "c", "--json").json == {"deleted": 0, "missing": 1}
    assert run("db", "count").out == "4\n"


@test
def metadata_are_updated_by_id_or_key():
    fill_with_fields()
    assert run("db", "update", "0", '{"year": 2021, "lang": null}').out == "updated 0 in docs\n"
    assert run("db", "update", "--key", "b ü", '{"tags": ["x"]}', "--json").json == {
        "collection": "docs", "id": 1}
    assert run("db", "update", "2", '{"lang": "en"}').out == "updated 2 in docs\n"
    assert run("db", "get", "0", "1", "2").out == (
        '0  [0, 0]  a  {"year":2021}\n1  [1, 0]  b ü  {"lang":"de","tags":["x"],"year":2020}\n'
        '2  [2, 0]  c  {"lang":"en"}\n')
    assert run("db", "update", "9", "{}", "--json", status=1).json["code"] == "not found"
    assert run("db", "update", "--key", "d", "{}", "--json", status=1).json["code"] == "not found"
    assert "byte" in run("db", "update", "0", "year = 3", status=1).err
    assert run("db", "get", "0").out == '0  [0, 0]  a  {"year":2021}\n'
    run("missing", "update", "0", "{}", status=1)
    assert not os.path.exists("missing")


@test
def fields_chosen_are_the_only_ones_shown():
    fill_with_fields()
    run("db", "put", "5", "[5, 0]", "--metadata", '{"note": "' + "a" * 9000 + '", "year": 2021}')
    hits = run("db", "search", "--vector", "[0, 0]", "--fields", "year,tags,none", "--json").json["hits"]
    assert [hit.get("metadata") for hit in hits] == [
        {"year": 2019}, {"year": 2020}, None, {"tags": ["x", "y"]}, None, {"year": 2021}], hits
    assert [hit.get("key") for hit in hits] == ["a", "b ü", "c", None, None, None], hits
    table = run("db", "search", "--vector", "[5, 0]", "-k", "2", "--fields", "year").out.splitlines()
    assert [line.split() for line in table[1:3]] == [["1", "5", "0", '{"year":2021}'], ["2", "4", "1"]], table
    assert run("db", "get", "0", "1", "--fields", "lang").out == (
        '0  [0, 0]  a  {"lang":"en"}\n1  [1, 0]  b ü  {"lang":"de"}\n')
    assert run("db", "get", "--key", "a", "--fields", "").out == "0  [0, 0]  a\n"
    assert run("db", "get", "0", "--fields", ",year,").out == '0  [0, 0]  a  {"year":2019}\n'


@test
def a_filter_chooses_what_is_found_counted_exported_and_deleted():
    fill_with_fields()
    assert found("db", "search", "--vector", "[9, 0]", "--filter", "lang = 'en'") == [3, 0]
    assert found("db", "search", "--id", "4", "--filter", '{"year": {"$gte": 2020}}') == [1]
    write("q.csv", "1,4,0\n")
    rows = run("db", "search", "--file", "q.csv", "--filter", "year < 2020", "--json").json
    assert [hit["id"] for hit in rows["hits"]] == [0], rows
    explained = run("db", "search", "--vector", "[9, 0]", "--filter", "lang = 'en'", "--explain")
    assert "match the filter: 0.4\n" in explained.out, explained.out
    assert run("db", "count", "--filter", "lang IS NULL").out == "2\n"
    run("db", "export", "en.jsonl", "--filter", "lang = 'en'")
    lines = [json.loads(line) for line in pathlib.Path("en.jsonl").read_text().splitlines()]
    assert lines == [
        {"id": 0, "vector": [0, 0], "key": "a", "metadata": {"lang": "en", "year": 2019}},
        {"id": 3, "vector": [3, 0], "metadata": {"lang": "en", "tags": ["x", "y"]}}], lines
    run("db", "export", "en.csv", "--filter", "lang = 'en'")
    assert pathlib.Path("en.csv").read_text() == "id,v0,v1\n0,0,0\n3,3,0\n"
    for words in (["count"], ["search", "--id", "1"], ["export", "no.csv"], ["delete"]):
        wrong = run("db", *words, "--filter", "lang = ", "--json", status=1).json
        assert wrong["code"] == "invalid" and "byte 7" in wrong["error"], wrong
    assert not os.path.exists("no.csv")
    counted = lambda *words: run("db", "count", "--filter", *words).out
    assert counted("lang = ? AND year >= ?", "--param", "en", "--param", "2000") == counted("lang = 'en' AND year >= 2000")
    assert counted("lang = :lang", "--param=en") == counted("lang = 'en'") != "0\n"
    assert counted("lang = ?", "--param", '"en"') == counted("lang = 'en'")
    assert counted("year >= ?", "--param", '"2000"') == "0\n" != counted("year >= ?", "--param", "2e3")
    assert counted("year > ?", "--param", "-1") == counted("year > ?", "--param", "0.5") == counted("year IS NOT NULL")
    assert counted("? IS NULL", "--param", "null") == counted("?", "--param", "true") == counted("TRUE")
    assert counted("_id < ?", "--param", "18446744073709551615") == counted("TRUE")
    for words in ["lang = ?"], ["lang = 'en'", "--param", "en"], ["lang = ? OR lang = ?", "--param", "en"]:
        assert "parameter" in run("db", "count", "--filter", *words, status=2).err
    assert "--param is of a --filter" in run("db", "count", "--param", "1", status=2).err
    assert run("db", "delete", "--filter", "lang = 'en'").out == "deleted 2 of 2 from docs\n"
    assert run("db", "delete", "--filter", "lang = 'en'", "--json").json == {
        "deleted": 0, "missing": 0}
    assert run("db", "count").out == "3\n"


def fill_with_chunks(count=60, documents=12):
    """Record i is at (i, 0), and a chunk of document i % documents."""
    lines = [{"id": i, "vector": [i, 0], "key": f"{i % documents}#{i // documents}", "metadata": {
        "doc": f"d{i % documents}", "half": i / 2, "even": i % 2 == 0}} for i in range(count)]
    write("chunks.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    run("db", "import", "chunks.jsonl")


@test
def groups_have_room_for_so_many_hits():
    fill_with_chunks()
    where = ["db", "search", "--vector", "[0, 0]", "--exact"]
    assert found(*where, "-k", "60", "--group-by", "doc") == list(range(12))
    assert found(*where, "-k", "60", "--group-by", "doc", "--group-size", "2") == list(range(24))
    assert found(*where, "-k", "3", "--group-by", "doc", "--filter", "half >= 10") == [20, 21, 22]
    write("q.csv", "1,0,0\n2,59,0\n")
    lines = run("db", "search", "--file", "q.csv", "-k", "2", "--group-by", "even", "--json").out
    assert [[hit["id"] for hit in json.loads(line)["hits"]] for line in lines.splitlines()] == [
        [0, 1], [59, 58]]


@test
def examples_are_ids_with_commas():
    fill_with_chunks()
    where = ["db", "search", "--exact", "-k", "2"]
    assert found(*where, "--like", "10,20") == [15, 14]
    assert found(*where, "--like", "10,20", "--unlike", "25") == [5, 4]
    assert found(*where, "--like", "7") == found(*where, "--id", "7") == [6, 8]
    for option, text in (("--like", "1,,2"), ("--like", ""), ("--like", "1, 2"), ("--like", "a"),
                         ("--like", "1,18446744073709551615")):
        assert "is no id" in run(*where, option, text, status=2).err
    assert "--unlike: 'x' is no id" in run(*where, "--like", "1", "--unlike", "2,x", status=2).err
    assert "61" in run(*where, "--like", "1,61", status=1).err
    assert run(*where, "--like", "1", "--unlike", "77", "--json", status=1).json["code"] == "not found"


@test
def pages_come_one_after_the_other():
    fill_with_chunks()
    where = ["db", "search", "--vector", "[0, 0]", "--exact", "-k", "5", "--filter", "half < 8.5"]
    lines = [json.loads(line) for line in run(*where, "--pages", "9", "--json").out.splitlines()]
    assert [line["page"] for line in lines] == [1, 2, 3, 4]
    assert [[hit["id"] for hit in line["hits"]] for line in lines] == [
        list(range(5)), list(range(5, 10)), list(range(10, 15)), [15, 16]]
    out = run(*where, "--pages", "2").out.splitlines()
    assert (out[0], out[8]) == ("page 1", "page 2") and out[10].split()[:2] == ["6", "5"], out
    assert out[-1].startswith("10 hits in "), out
    assert run(*where[:4], "--key", "0#0", "--pages", "1", status=2).err
    assert "12 hits in" in run("db", "search", "--like", "0", "--pages", "9", "--filter", "half < 6.5").out
    assert "0 hits in" in run("db", "search", "--id", "0", "--pages", "9", "--filter", "half < 0").out


@test
def facets_count_the_values_of_a_field():
    fill_with_fields()
    run("db", "put", "5", "[5, 0]", "--metadata", r'{"lang": "\u0000\u001b[1m\t\"' + "é" * 80 + '"}')
    assert run("db", "facets", "lang", "--json").json == {
        "field": "lang", "records": 6, "nulls": 2, "distinct": 3, "values": [
            {"value": "en", "records": 2}, {"value": '\0\x1b[1m\t"' + "é" * 80, "records": 1},
            {"value": "de", "records": 1}]}
    out = run("db", "facets", "lang").out.splitlines()
    assert out[0].split() == ["value", "records"] and out[1].split() == ["en", "2"], out
    assert "\x1b" not in out[2] and "é..." in out[2], out
    assert out[-1] == "3 of 3 values, 6 records, 2 of them without lang", out
    few = run("db", "facets", "tags", "--limit", "1", "--filter", "lang = 'en'").out.splitlines()
    assert few[1].split() == ["x", "1"] and few[2] == (
        "1 of 2 values, 2 records, 1 of them without tags"), few
    assert run("db", "facets", "none", "--json").json["values"] == []
    for value in ("true", "-7", "0.1", "1e+300", "9223372036854775807"):
        run("db", "put", "6", "[6, 0]", "--metadata", '{"v": ' + value + "}")
        assert f'"value": {value},' in run("db", "facets", "v", "--json").out
        assert run("db", "facets", "v").out.splitlines()[1].split() == [value, "1"]
    assert run("db", "facets", "_key", "--json", status=1).json["code"] == "invalid"
    assert run("db", "facets", "v", "--filter", "v <", "--json", status=1).json["code"] == "invalid"


@test
def bars_are_for_terminals_only():
    import pty
    fill_with_chunks()
    master, slave = pty.openpty()
    process = subprocess.run(SHELL + ["db", "facets", "even", "--filter", "half < 1.5"], stdout=slave,
                             check=True, timeout=120)
    os.close(slave)
    shown = os.read(master, 4096).decode().splitlines()
    os.close(master)
    assert process.returncode == 0 and shown[1].split() == ["true", "2", 30 * "#"], shown
    assert shown[2].split() == ["false", "1", 15 * "#"], shown
    assert "#" not in run("db", "facets", "even").out


@test
def limits_are_set_shown_and_kept():
    fill_with_fields()
    assert "limits" not in run("db", "info").out
    limits = run("db", "limits", "--json").json
    assert limits["limits"] == {
        "records": 0, "bytes": 0, "queries_per_second": 0, "writes_per_second": 0}
    assert (limits["collection"], limits["records"]) == ("docs", 5) and limits["bytes"] >= 5 * 16
    run("db", "limit", "--records", "5", "--queries-per-second", "1000000")
    out = run("db", "limit", "--bytes", "1000000").out.splitlines()
    assert [line.split()[-2:] for line in out[1:3]] == [["5", "5"], [str(limits["bytes"]), "1,000,000"]]
    assert out[3].split()[-1] == "1,000,000" and out[4].split()[-1] == "none", out
    assert run("db", "put", "9", "[1, 2]", "--json", status=1).json["code"] == "quota"
    used = f"limits of docs: records 5 of 5, bytes {limits['bytes']} of 1,000,000, queries a second 1,000,000"
    assert run("db", "info").out.splitlines()[-1] == used
    info = run("db", "info", "--json").json["collections"][0]
    assert (info["limits"]["records"], info["bytes"]) == (5, limits["bytes"]), info
    run("db", "limit", "--records", "0", "--json")
    run("db", "put", "9", "[1, 2]")
    assert run("db", "limits", "--json").json["limits"]["bytes"] == 1000000
    run("db", "limit", "--records", "1", "--collection", "none", status=1)


@test
def fields_are_declared_and_kept():
    fill_with_fields()
    assert run("db", "fields").out == "no fields are declared\n"
    out = run("db", "declare", "year:i64!", "a:b:texts", "lang:text", "--strict").out.splitlines()
    assert [line.split() for line in out] == [
        ["field", "type", "required"], ["a:b", "texts", "no"], ["lang", "text", "no"],
        ["year", "i64", "yes"], ["no", "other", "fields"]], out
    assert run("db", "fields", "--json").json == {"collection": "docs", "strict": True, "fields": [
        {"name": "a:b", "type": "texts", "required": False},
        {"name": "lang", "type": "text", "required": False},
        {"name": "year", "type": "i64", "required": True}]}
    for metadata in ("{}", '{"year": "x"}', '{"year": 1, "more": 2}'):
        assert run("db", "put", "[1, 2]", "--metadata", metadata, "--json", status=1).json[
            "code"] == "invalid"
    run("db", "put", "[1, 2]", "--metadata", '{"year": 1}')
    assert run("db", "declare", "--none", "--json").json["fields"] == []
    run("db", "put", "[1, 2]")
    run("db", "declare", "a:i64", "a:f64", status=1)
    assert run("db", "declare", "--strict").out == "no other fields\n"


@test
def stretch_and_timeout_reach_the_search():
    rows = vectors(3000, 24)
    write("a.fvecs", vecs(rows, "f"))
    run("db", "import", "a.fvecs", "--optimize")
    def effort(*words):
        return run("db", "search", "--id", "5", "--explain", "--json", *words).json["explain"]["distances"]
    walked = run("db", "search", "--id", "5", "--explain").out
    assert "walked a graph of 3,000 rows, read the links of " in walked, walked
    assert "one by one" not in walked, walked
    assert effort("--stretch", "1") < effort("--stretch", "1.3") < effort("--stretch", "3", "--ef", "3000")
    assert run("db", "search", "--id", "5", "--stretch", "1.1", "--recall", "0.9", status=1).err
    for words in (["--stretch", "0.9"], ["--stretch", "x"], ["--timeout", "0"], ["--timeout", "-1"],
                  ["--recall", "1.5"], ["--recall", "-0.1"]):
        assert f"'{words[1]}'" in run("db", "search", "--id", "5", *words, status=2).err, words
    run("db", "search", "--id", "5", "--timeout", "60000")
    started = time.monotonic()
    write("q.fvecs", vecs(rows * 20, "f"))
    result = subprocess.run(
        SHELL + ["db", "search", "--file", "q.fvecs", "--exact", "--timeout", "1", "--json"],
        capture_output=True, check=False)
    last = json.loads(result.stdout.decode().splitlines()[-1])
    assert result.returncode == 1 and last["code"] == "timed out", last
    assert "--timeout 1 ms" in last["error"], last
    assert time.monotonic() - started < 20


@test
def recall_is_calibrated_on_the_rows_of_a_file():
    write("small.csv", csv(vectors(10, 3)))
    run("small", "import", "small.csv")
    write("q.csv", csv(vectors(60, 3, seed=9)))
    assert "compares all records" in run("small", "calibrate", "q.csv").out
    write("few.csv", csv(vectors(49, 3, seed=9)))
    assert "50" in run("small", "calibrate", "few.csv", status=1).err
    write("wide.csv", csv(vectors(60, 4, seed=9)))
    assert "rows of 4 elements" in run("small", "calibrate", "wide.csv", status=1).err
    assert run("small", "info").out.splitlines()[-1].split()[10] == "no"
    write("a.fvecs", vecs(vectors(9000, 16), "f"))
    run("db", "import", "a.fvecs", "--optimize")
    assert re.search(r" 0\.[0-9]{3} at ef 64 ", run("db", "info").out), run("db", "info").out
    assert run("db", "info", "--json").json["collections"][0]["recall_queries"] == 450
    write("q.fvecs", vecs(vectors(3000, 16, seed=9), "f"))
    made = run("db", "calibrate", "q.fvecs", "--skip", "10", "--limit", "200", "--json").json
    assert made["queries"] == 200 and 0.5 < made["recall"] <= 1, made
    out = run("db", "calibrate", "q.fvecs", "--limit", "1100").out
    assert out.startswith("calibrated default with 1,100 queries in ") and "of the 10 nearest" in out, out


@test
def the_standard_input_is_read():
    text = '{"id": 3, "text": "a", "vector": [1, 2]}\n{"id": 4, "vector": [2, 3]}\n'
    assert run("db", "import", "-", "--format", "jsonl", "--json", text=text).json["imported"] == 2
    run("db", "import", "-", status=1, text=text)


@test
def upkeep_works():
    write("a.csv", csv(vectors(500, 8)))
    run("db", "import", "a.csv")
    run("db", "delete", *range(0, 100))
    run("db", "optimize")
    stored = run("db", "info", "--json").json["collections"][0]
    assert (stored["records"], stored["rows"], stored["unindexed_rows"]) == (400, 400, 0), stored
    assert run("db", "check", "--json").json == {"problems": [], "ok": True}
    assert run("db", "backup", "copy", "--json").json["ok"]
    assert run("copy", "check").out == "copy: no problems\n"
    assert run("db", "backup", "db/copy", "--json", status=1).json["code"] == "invalid"
    assert found("copy", "search", "--id", "200") == found("db", "search", "--id", "200")
    again = run("db", "backup", "copy", "--json").json
    assert again["copied_bytes"] == 0 and again["kept_bytes"] > 0, again
    run("copy", "delete", "200")
    assert run("db", "backup", "copy", "--json", status=1).json["code"] == "exists"


@test
def damage_is_reported():
    write("a.csv", csv(vectors(500, 8)))
    run("db", "import", "a.csv")
    run("db", "optimize")
    segment = max(pathlib.Path("db").glob("seg-*"), key=lambda path: path.stat().st_size)
    data = bytearray(segment.read_bytes())
    data[len(data) // 3] ^= 0x40
    segment.write_bytes(bytes(data))
    report = run("db", "check", "--json", status=1).json
    assert not report.get("ok", False) and report["code"] == "corrupt", report
    assert segment.name in json.dumps(report)


@test
def what_is_intact_of_a_damaged_database_is_salvaged():
    write("a.csv", csv(vectors(2000, 8)))
    run("db", "import", "a.csv")
    run("db", "optimize")
    segment = max(pathlib.Path("db").glob("seg-*"), key=lambda path: path.stat().st_size)
    data = bytearray(segment.read_bytes())
    data[30000] ^= 0x40  # 512 vectors of 32 bytes are in this block
    segment.write_bytes(bytes(data))
    assert "1 problem; restore a backup, or `omendb db salvage PATH`" in run("db", "check", status=1).err
    told = run("db", "salvage", "saved", "--json", status=1).json
    assert told["ok"] and segment.name in json.dumps(told["problems"]), told
    assert (told["records"], told["lost_rows"], told["collections"], told["doubtful"]) == (1488, 512, 1, 0), told
    assert run("saved", "check", "--json").json == {"problems": [], "ok": True}
    assert run("saved", "count").out == "1488\n"
    assert "saved 1488 records in 1 collection, 0 known" in run("saved", "salvage", "again").out
    size = segment.stat().st_size
    segment.unlink()
    told = run("db", "salvage", "missing", "--json", status=1).json
    assert (told["records"], told["lost_rows"], told["lost_files"], told["lost_bytes"]) == (0, 0, 1, size), told
    lost = run("db", "salvage", "missed", status=1)
    assert ", and what 1 lost file held (" in lost.out and "problems: what could be" in lost.err, lost.out
    assert run("db", "salvage", "saved", "--json", status=1).json["code"] == "exists"
    assert "no database" in run("none", "salvage", "new", status=1).err


PREPARE = """
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
def call(name, *arguments):
    assert getattr(library, "omendb_" + name)(*arguments) == 0, name
db, docs, txn = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
call("open", b"db", None, ctypes.byref(db))
call("collection_open", db, b"default", None, ctypes.byref(docs))
for name in sys.argv[2:]:
    call("txn_begin", db, 0, ctypes.byref(txn))
    ids, vector = (ctypes.c_uint64 * 1)(len(name)), (ctypes.c_float * 3)(7, 8, 9)
    call("put_batch", docs, txn, ctypes.c_size_t(1), ids, vector, 0, None)
    call("txn_prepare", txn, name.encode())
library.omendb_collection_close(docs)
call("close", db)
"""


def prepare(*names):
    """Prepares transactions; each puts the record whose id is the length of its name. False where there
    is no library that a script can load."""
    library = BUILD.resolve() / "libomendb.so"
    probe = [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", str(library)]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        return False
    process = subprocess.run(
        [sys.executable, "-c", PREPARE, str(library), *names], capture_output=True, check=False)
    assert process.returncode == 0, process.stderr.decode()
    return True


@test
def prepared_transactions_are_seen_and_settled():
    write("a.csv", csv(vectors(3, 3)))
    run("db", "import", "a.csv")
    assert run("db", "prepared").out == "no prepared transactions\n"
    assert run("db", "prepared", "--json").json == []
    assert "`omendb db prepared` lists them" in run("db", "commit", "none", status=1).err
    assert run("db", "rollback", "none", "--json", status=1).json["code"] == "not found"
    assert "waiting" not in run("db", "info").out
    if not prepare("first", "second", "a third"):
        return
    names = [{"name": name, "state": "waiting"} for name in ("a third", "first", "second")]
    assert run("db", "prepared", "--json").json == names
    assert re.search(r"^first +waiting$", run("db", "prepared", "--read-only").out, re.M)
    assert "prepared    3 waiting; `omendb db prepared` lists them\n" in run("db", "info").out
    assert run("db", "info", "--json").json["prepared_transactions"] == 3
    assert run("db", "put", "5", "[1, 2, 3]", "--json", status=1).json["code"] == "busy"
    assert run("db", "forget", "first", "--json", status=1).json["code"] == "busy"
    assert run("db", "commit", "first").out == "first: committed\n"
    assert run("db", "get", "5", "--json").json["vector"] == [7, 8, 9]
    assert run("db", "rollback", "second", "--json").json == {"name": "second", "state": "rolled back"}
    run("db", "get", "6", status=1)
    assert run("db", "commit", "second", "--json", status=1).json["code"] == "conflict"
    assert re.search(r"^second +rolled back$", run("db", "prepared").out, re.M)
    assert run("db", "info", "--json").json["prepared_transactions"] == 1
    assert run("db", "forget", "second").out == "second: forgotten\n"
    run("db", "forget", "first")
    assert run("db", "prepared", "--json").json == names[:1]
    run("db", "commit", status=2)


@test
def what_is_no_database_is_refused():
    write("file", "hello")
    assert "import FILE" in run("missing", "info", status=1).err
    assert "create COLLECTION --dim N" in run("missing", "put", "[1]", status=1).err
    for words in ["get", "notes.md"], ["delete", "notes.md"], ["put", "notes.md", "[1]"]:
        assert "a key is given by --key" in run("missing", *words, status=2).err
    assert run("file", "info", "--json", status=1).json["code"] == "unknown format"
    os.mkdir("folder")
    write("folder/letter.txt", "hello")
    write("a.csv", "1,1,2\n")
    assert run("folder", "import", "a.csv", "--json", status=1).json["code"] == "unknown format"
    assert os.listdir("folder") == ["letter.txt"]
    run("db", "import", "missing.csv", status=1)
    assert not os.path.exists("db")


@test
def a_reader_works_beside_a_writer_and_a_second_writer_is_told():
    write("a.csv", csv(vectors(10, 3)))
    run("db", "import", "a.csv")
    writer = subprocess.Popen(
        SHELL + ["db", "import", "-", "--format", "csv", "--batch", "1"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        writer.stdin.write(b"100,1,2,3\n101,1,2,3\n102,1,2,3\n")
        writer.stdin.flush()
        deadline = time.monotonic() + 60
        while "101" not in run("db", "export", "-", "--format", "csv").out:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        busy = run("db", "delete", "1", "--json", status=1).json
        assert busy["code"] == "busy" and busy["error"].count("close it") == 1, busy
        assert "read_only" not in busy["error"] and "search, get, count" in busy["error"], busy
        run("db", "count", "--read-only")
        writer.send_signal(signal.SIGINT)
        writer.wait(timeout=60)  # before its input is closed, which would end the import as well
        err = writer.stderr.read()
        assert writer.returncode == 1 and b"interrupted" in err and b"stored; --skip" in err, err
    finally:
        writer.kill()
        writer.wait()
    assert run("db", "check").status == 0


def wait_until_interrupts_are_caught(process):
    """An earlier one would kill it. A system that does not tell what is caught is given time."""
    facts = pathlib.Path(f"/proc/{process.pid}/status")
    deadline = time.monotonic() + 60
    while facts.exists():
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", facts.read_text(), re.MULTILINE)
        if int(caught[1], 16) >> (signal.SIGINT - 1) & 1:
            return
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(1)


@test
def an_import_that_is_interrupted_before_its_first_batch_leaves_nothing():
    process = subprocess.Popen(
        SHELL + ["db", "import", "-", "--format", "csv", "--json"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        process.stdin.write(b"100,1,2,3\n101,1,2,3\n")
        process.stdin.flush()
        wait_until_interrupts_are_caught(process)
        unread = bytearray(struct.pack("i", 1))
        while unread != bytearray(4):  # afterwards it waits for the rest of the batch
            time.sleep(0.01)
            fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, unread)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1 and b"interrupted. Nothing was stored" in out, out
    assert not os.path.exists("db")


@test
def the_progress_bar_is_for_terminals_only():
    import pty
    lines = [b"%d,1,%d\n" % (i, i) for i in range(40)]
    master, slave = pty.openpty()
    process = subprocess.Popen(
        SHELL + ["db", "import", "-", "--format", "csv", "--batch", "1"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    for line in lines:
        process.stdin.write(line)
        process.stdin.flush()
        time.sleep(0.1)
    out, _ = process.communicate(timeout=60)
    shown = b""
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(master)
    assert process.returncode == 0 and b"imported 40 rows" in out
    assert b"importing  " in shown and b"rows/s" in shown and shown.endswith(b"\r\x1b[K"), shown


@test
def names_in_json_are_valid_json():
    write("a.csv", "1,1,2\n")
    name = 'say "hi" \\ \u00e9'
    run("db", "import", "a.csv", "--collection", name)
    assert run("db", "collections", "--json").json[0]["name"] == name
    bad = subprocess.run(SHELL + [b"db\xff\x01", "info", "--json"], capture_output=True, check=False)
    assert bad.returncode == 1 and json.loads(bad.stdout.decode("utf-8"))["code"] == "not found"


@test
def noise_never_crashes_the_shell():
    source = random.Random(5)
    names = ["a.npy", "a.fvecs", "a.bvecs", "a.fbin", "a.u8bin", "a.i8bin", "a.csv", "a.jsonl"]
    good = npy(vectors(3, 3), "<f4", "f")
    for i in range(64):
        data = bytearray(source.randbytes(source.randrange(1, 300)))
        if names[i % 8] == "a.npy":
            data = bytearray(good)
            data[source.randrange(len(data))] = source.randrange(256)
        write(names[i % 8], bytes(data))
        process = subprocess.run(SHELL + ["db", "import", names[i % 8], "--json", "--collection", str(i)],
                                 capture_output=True, check=False, timeout=60)
        assert process.returncode in (0, 1), (names[i % 8], process)
        json.loads(process.stdout.decode())


@test
def a_full_output_is_an_error():
    if not os.path.exists("/dev/full"):
        return
    with open("/dev/full", "wb") as full:
        process = subprocess.run(SHELL + ["--help"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert process.returncode == 1 and b"cannot be written" in process.stderr


def main():
    given = os.environ.get("OMENDB_TEST_DIRECTORY")
    work = pathlib.Path(given or tempfile.mkdtemp(prefix="omendb-shell-")).resolve()
    passed = failed = 0
    for function in TESTS:
        if len(sys.argv) > 1 and sys.argv[1] not in function.__name__:
            continue
        folder = work / function.__name__
        folder.mkdir(parents=True)
        os.chdir(folder)
        try:
            function()
            passed += 1
            print("ok", function.__name__, flush=True)
        except Exception:
            failed += 1
            traceback.print_exc()
            print("FAILED", function.__name__, flush=True)
        os.chdir(work)
        shutil.rmtree(folder)
    if not given:
        work.rmdir()
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
