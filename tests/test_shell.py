#!/usr/bin/env python3
"""The shell as scripts and people use it. Standard library only; the last line is "N passed, M failed".

BUILD is the folder with `omendb` (build), RUNNER is put before it, OMENDB_TEST_DIRECTORY is an empty
folder to work in. An argument is a part of the names of the tests to run.
"""

import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
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


def run(*arguments, status=0, text=None):
    """Runs the shell; fails unless it exits with `status` and says why in one place only."""
    process = subprocess.run(
        SHELL + [str(argument) for argument in arguments], capture_output=True, timeout=120,
        input=b"" if text is None else text.encode(), check=False)
    result = Result(process)
    assert result.status == status, f"{arguments}: status {result.status}: {result.err}{result.out}"
    if status == 0 or "--json" in arguments:
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
    assert run("--help").out == run("help").out == run("db", "help").out == run("db", "import", "-h").out
    assert run("--version").out.startswith("omendb ")
    assert set(run("--version", "--json").json) == {"version", "format_version", "kernels"}


@test
def a_wrong_command_line_exits_with_2_and_makes_nothing():
    for words in (
        [], ["db"], ["db", "frobnicate"], ["db", "import"], ["db", "info", "more"], ["--what"],
        ["db", "info", "--put"], ["db", "import", "a.csv", "--metric", "l3"], ["db", "search"],
        ["db", "import", "a.csv", "--batch", "0"],
        ["db", "import", "a.csv", "--limit"], ["db", "import", "a.csv", "--m", "1e3"],
        ["db", "search", "--id", "1", "--vector", "[1]"], ["db", "search", "--id", "-1"],
        ["db", "search", "--id", "1", "--row", "2"], ["db", "get", "x"], ["db", "drop"],
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
    explain = run("db", "search", "--id", "1", "--explain", "--json").json["explain"]
    assert explain["distances"] > 0
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
    run("db", "export", "a.npy", status=1)


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
    assert found("copy", "search", "--id", "200") == found("db", "search", "--id", "200")
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
def what_is_no_database_is_refused():
    write("file", "hello")
    assert "import FILE" in run("missing", "info", status=1).err
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
        assert run("db", "delete", "1", "--json", status=1).json["code"] == "busy"
        writer.send_signal(signal.SIGINT)
        writer.wait(timeout=60)  # before its input is closed, which would end the import as well
        err = writer.stderr.read()
        assert writer.returncode == 1 and b"interrupted" in err and b"stored; --skip" in err, err
    finally:
        writer.kill()
        writer.wait()
    assert run("db", "check").status == 0


@test
def the_progress_bar_is_for_terminals_only():
    import pty
    lines = [b"%d,1,%d\n" % (i, i) for i in range(12)]
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
    assert process.returncode == 0 and b"imported 12 rows" in out
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
