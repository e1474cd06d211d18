#!/usr/bin/env python3
"""What the suite executed of omendb.c (make coverage): lines and branches, module by module.

    coverage.py FOLDER [--floor PERCENT]

FOLDER is the output of a build with -fprofile-instr-generate -fcoverage-mapping: omendb.o,
internals.o, tests/, and profiles/*.profraw from the runs. Prints the table, writes FOLDER/uncovered.txt (every outcome
that never happened, as FILE:LINE:COLUMN with its line), and exits 1 below the floor.

A branch is one outcome, true or false, of one condition: half of what || and && decide counts by
itself. White-box tests include omendb.c, so that each has counters of its own for the same source:
they are joined by the place in the source; a condition inside a macro counts at every use of it.

Not counted: conditions of an assert (what cannot happen is not to be covered); the outcome of a
switch that no case is (over an enumeration, of which the compiler knows that all cases are there);
modules whose instructions this processor lacks, and conditions that it alone decides.

Known to be inexact: threads share counters without locks, and the compiler derives one outcome of a
condition from the other, so that an update lost in a threaded test can show an outcome that did not
happen. A killed process would do the same, so those of test_kill write no profile."""
import argparse
import glob
import json
import os
import re
import subprocess
import sys

# Conditions that only another processor or system decides: what it can do, how wide a size is,
# whether two of its errors are one number.
ELSEWHERE = re.compile(
    r"__get_cpuid|cpu_has\(|\(saved & 0x|\(c & \(1u <<|> SIZE_MAX$|== EWOULDBLOCK$")
BANNER = re.compile(r" \* ([a-z_0-9]+)\.c$")
LIMIT = 1 << 62  # above: a difference of counters that is negative


def read_modules(lines):
    """The module of each line, by the banners; a header counts with the first to include it."""
    modules, current = [], ""
    for line in lines:
        match = BANNER.match(line)
        current = match.group(1) if match else current
        modules.append(current)
    return modules


def read_asserts(lines):
    """Numbers of the lines that an assert covers."""
    covered, depth = set(), 0
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if depth == 0 and not text.startswith("assert("):
            continue
        covered.add(number)
        depth += text.count("(") - text.count(")")
    return covered


def absent_modules():
    """Modules for instructions that this processor lacks."""
    absent = set()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            text = file.read()
    except OSError:
        text = ""
    if "avx512f" not in text:
        absent.add("kernels_avx512")
    if "avx2" not in text:
        absent.add("kernels_avx2")
    return absent


def export(folder, binaries):
    """The coverage of all binaries as llvm-cov tells it."""
    data = os.path.join(folder, "coverage.profdata")
    profiles = sorted(glob.glob(os.path.join(folder, "profiles", "*.profraw")))
    if not profiles:
        sys.exit("coverage.py: no profile in %s/profiles: the programs wrote none" % folder)
    subprocess.run(["llvm-profdata", "merge", "-sparse", "-o", data] + profiles, check=True)
    for binary in binaries:
        text = subprocess.run(["llvm-cov", "export", binary, "-instr-profile=" + data],
                              check=True, stdout=subprocess.PIPE).stdout
        yield json.loads(text)["data"][0]


def happened(count):
    return 0 < count < LIMIT


def roots(function):
    """For each file of a function (a macro's expansion is one): where omendb.c uses it, or None."""
    names = function["filenames"]
    places = {i: () for i, name in enumerate(names) if os.path.basename(name) == "omendb.c"}
    uses = {}
    for region in function["regions"]:
        if region[7] == 1:  # an expansion: region[6] is its file, region[5] where it stands
            uses[region[6]] = (region[5], region[0], region[1])
    found = {}
    for i in places:
        chain, at = (), i
        while at in uses:
            at, line, column = uses[at]
            chain = ((line, column),) + chain
        found[i] = chain
    return found


def join(exports):
    """{place: [true happened, false happened]} and {line: happened} of omendb.c."""
    branches, lines = {}, {}
    for data in exports:
        for function in data["functions"]:
            where = roots(function)
            for line, column, line_end, column_end, yes, no, file, _, _ in function["branches"]:
                if file in where:
                    key = where[file] + ((line, column, line_end, column_end),)
                    seen = branches.setdefault(key, [False, False])
                    seen[0] |= happened(yes)
                    seen[1] |= happened(no)
        for file in data["files"]:
            if os.path.basename(file["filename"]) == "omendb.c":
                join_lines(file["segments"], lines)
    return branches, lines


def join_lines(segments, lines):
    """A line counts as executed when a region that covers a part of it was."""
    for (line, _, count, has_count, is_entry, *_), after in zip(segments, segments[1:]):
        if not has_count:
            continue
        first = line if is_entry else line + 1
        for number in range(first, max(after[0], first + (after[0] == line))):
            lines[number] = lines.get(number, False) or happened(count)


def percent(part, whole):
    return 100.0 * part / whole if whole else 100.0


def row(name, counts):
    lines, lines_hit, branches, branches_hit = counts
    return "%-20s %6d %6.1f %%   %6d %5d left %6.1f %%" % (
        name, lines, percent(lines_hit, lines), branches, branches - branches_hit,
        percent(branches_hit, branches))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--floor", type=float, default=0.0)
    arguments = parser.parse_args()
    folder = arguments.folder

    with open("omendb.c", encoding="utf-8") as file:
        source = file.read().split("\n")
    modules, asserts, absent = read_modules(source), read_asserts(source), absent_modules()
    objects = [os.path.join(folder, name) for name in ("omendb.o", "internals.o")]
    binaries = [path for path in objects if os.path.exists(path)]
    for test in sorted(glob.glob("tests/*.c")):
        binary = os.path.join(folder, test[:-2])
        with open(test, encoding="utf-8") as file:
            if '\n#include "omendb.c"' in file.read() and os.path.exists(binary):
                binaries.append(binary)
    branches, lines = join(export(folder, binaries))

    table = {}
    for number, hit in lines.items():
        counts = table.setdefault(modules[number - 1], [0, 0, 0, 0])
        counts[0] += 1
        counts[1] += hit
    missing, elsewhere = [], 0
    for key, (yes, no) in sorted(branches.items()):
        line, column = key[0][0], key[0][1]
        if line in asserts:
            continue
        condition = source[key[-1][0] - 1][key[-1][1] - 1:]
        if key[-1][2] == key[-1][0]:
            condition = condition[:key[-1][3] - key[-1][1]]
        if ELSEWHERE.search(condition):
            elsewhere += 2
            continue
        if "switch (%s)" % condition in source[line - 1]:
            continue
        counts = table.setdefault(modules[line - 1], [0, 0, 0, 0])
        counts[2] += 2
        counts[3] += yes + no
        outcome = {(False, False): "never decided", (False, True): "never true",
                   (True, False): "never false"}.get((yes, no))
        if outcome and modules[line - 1] not in absent:
            missing.append("omendb.c:%d:%d: %s: %s: %s\n    %s" % (
                line, column, modules[line - 1], outcome, condition, source[line - 1].strip()))

    with open(os.path.join(folder, "uncovered.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(missing) + "\n")
    total = [0, 0, 0, 0]
    print("%-20s %6s %8s   %6s %10s %8s" % ("module", "lines", "", "branches", "", ""))
    for name in dict.fromkeys(modules):
        if name in table and name not in absent:
            total = [a + b for a, b in zip(total, table[name])]
            print(row(name, table[name]))
    for name in sorted(absent & set(table)):
        print("%-20s not on this processor: %d branches" % (name, table[name][2]))
    print("%-20s decided elsewhere: %d branches" % ("", elsewhere))
    print(row("total", total))
    reached = percent(total[3], total[2])
    if reached < arguments.floor:
        print("%.2f %% of the branches, and not %.2f %%: what is missing is in %s/uncovered.txt"
              % (reached, arguments.floor, folder))
        sys.exit(1)


if __name__ == "__main__":
    main()
