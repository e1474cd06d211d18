#!/usr/bin/env python3
"""README.md does what it shows: its programs, commands and Python lines are run in their order, in one
empty folder, as a reader would, and must print what stands behind them. Standard library only; the
last line is "N passed, M failed".

BUILD is the folder with libomendb and `omendb` (build), CC the compiler (cc), OMENDB_TEST_DIRECTORY an
empty folder to work in. In place of omendb.c programs link the library, which takes less time. What a
machine decides, times and rates, may differ. The Python lines need numpy, and are left out without it.
"""

import doctest
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = pathlib.Path(os.environ.get("BUILD", ROOT / "build")).resolve()
TIMES = re.compile(r"\b[\d.,]+ (ms|s|rows/s)\b")


def blocks(text):
    """The fenced blocks: the language of each, its line in the file, and its text."""
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield found.group(1), text.count("\n", 0, found.start()) + 1, found.group(2)


def same(shown, printed):
    return TIMES.sub(r"0 \1", shown) == TIMES.sub(r"0 \1", printed)


def check(name, shown, printed):
    """One test; prints what is wrong. Returns whether nothing is."""
    if same(shown, printed):
        print("ok", name)
        return True
    print(f"README.md shows\n{shown}but this is printed:\n{printed}FAILED {name}", flush=True)
    return False


def commands(text):
    """Each command, behind "$ ", with the lines that it is shown to print."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    assert parts[0] == "", f"a line before the first command: {parts[0]!r}"
    return list(zip(parts[1::2], parts[2::2]))


def run(command):
    made = subprocess.run(
        command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    return made.stdout.decode() + (f"exit status {made.returncode}\n" if made.returncode else "")


def run_console(line, text, program):
    """Runs the commands; a program that they compile is the one in the last block of C."""
    results = []
    for number, (command, shown) in enumerate(commands(text), 1):
        compiled = re.match(r"cc .*?(\w+\.c) omendb\.c ", command)
        if compiled:
            pathlib.Path(compiled.group(1)).write_text(program)
            command = command.replace("cc ", os.environ.get("CC", "cc") + " -Wall -Wextra -Werror ", 1)
            command = command.replace(" omendb.c ", " build/libomendb.a ", 1)
        results.append(check(f"line {line}, command {number}", shown, run(command)))
    return results


def run_python(line, text):
    """The lines as one session of the interpreter, in this process."""
    results = []
    names = {}
    runner = doctest.DocTestRunner(verbose=False)
    for example in doctest.DocTestParser().get_examples(text):
        out = []
        one = doctest.DocTest([example], names, "README.md", "README.md", line, text)
        runner.run(one, out=out.append, clear_globs=False)
        names = one.globs
        results.append(not out)
        print("".join(out) + ("FAILED" if out else "ok"), f"line {line + example.lineno + 1}", flush=True)
    return results


def prepare():
    """What lies in the folder of a reader: the header, the library, the shell, the Python module."""
    os.symlink(ROOT / "omendb.h", "omendb.h")
    os.symlink(BUILD, "build")
    sys.path.insert(0, str(ROOT / "examples" / "python"))
    sys.dont_write_bytecode = True
    for name in ("libomendb.so", "libomendb.dylib"):
        if (BUILD / name).exists():
            os.environ["OMENDB_LIBRARY"] = str(BUILD / name)


def run_blocks(text):
    program, results, seen = "", [], set()
    for language, line, block in blocks(text):
        seen.add(language)
        if language == "c":
            program = block
        elif language == "console":
            results += run_console(line, block, program)
        elif importlib.util.find_spec("numpy") is not None:
            results += run_python(line, block)
        else:
            print(f"skipped line {line}: there is no numpy")
    return results + [check("there are programs, commands and Python lines", "c console pycon\n",
                            " ".join(sorted(seen)) + "\n")]


def main():
    given = os.environ.get("OMENDB_TEST_DIRECTORY")
    work = pathlib.Path(given or tempfile.mkdtemp(prefix="omendb-readme-")).resolve()
    os.chdir(work)
    prepare()
    results = run_blocks((ROOT / "README.md").read_text(encoding="utf-8"))
    os.chdir(ROOT)
    if not given:
        shutil.rmtree(work)
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return not all(results)


if __name__ == "__main__":
    sys.exit(main())
