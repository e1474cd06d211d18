#!/usr/bin/env python3
"""Joins the modules of OmenDB into the one file that everybody compiles.

    amalgamate.py                  writes ../omendb.c
    amalgamate.py --check          compares instead, and exits 1 when omendb.c is stale
    --modules LIST --output FILE   another list, another place (to compile some modules only)

The order of the modules is the list in modules.txt. Each quoted header is inlined where it is first
included, once; the public header stays an include. A system include outside of any condition is
left where it is first used and dropped afterwards; one inside a condition always stays, because the
condition of the first use need not hold at the second.

Refused, because each would make omendb.c differ from what the modules say: a module that is listed
twice or missing, a header that includes itself in a cycle, a quoted include that is not a header of
this folder, and one inside a condition (its text would vanish for later users where the condition
is false). A module that is in the folder but not in the list is reported, and fails --check: half a
module must not stop the people who work on others.

The result depends on nothing but the inputs: no time, no path, no version of anything.
"""
import argparse
import hashlib
import os
import re
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
PUBLIC_HEADER = "omendb.h"
INCLUDE = re.compile(r'\s*#\s*include\s*(?:"([^"]+)"|(<[^>]+>))')
CONDITION_BEGINS = re.compile(r"\s*#\s*if")
CONDITION_ENDS = re.compile(r"\s*#\s*endif")
GUARD = re.compile(r"\s*#\s*ifndef\s+OMENDB_\w+_H\b")

PROLOGUE = """\
/* omendb.c: the OmenDB library in one file. Compile it with any program:
 *
 *     cc -std=c11 -O2 app.c omendb.c -lm -lpthread
 *
 * GENERATED from the modules in amalgamation/ by amalgamation/amalgamate.py: do not edit. The manual
 * is omendb.h. Only omendb_* symbols are global; everything else is static.
 *
 * Copyright 2026 The OmenDB Authors
 * SPDX-License-Identifier: Apache-2.0
 *
 * Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except
 * in compliance with the License. You may obtain a copy of the License at
 *
 *     http://www.apache.org/licenses/LICENSE-2.0
 *
 * Unless required by applicable law or agreed to in writing, software distributed under the License
 * is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express
 * or implied. See the License for the specific language governing permissions and limitations under
 * the License.
 *
 * Modules: {modules}
 * SHA-256 of the inputs: {digest}
 */

/* Systems hide what is not in ISO C under -std=c11. These must come before any system header. */
#if !defined(_GNU_SOURCE)
#define _GNU_SOURCE 1
#endif
#if defined(__APPLE__) && !defined(_DARWIN_C_SOURCE)
#define _DARWIN_C_SOURCE 1
#endif
#if !defined(_FILE_OFFSET_BITS)
#define _FILE_OFFSET_BITS 64
#endif

#include "omendb.h"
"""


class Failure(Exception):
    """What is wrong with the inputs, as a sentence."""


def read_text(path):
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        raise Failure(f"{os.path.basename(path)}: listed or included, but missing") from None


def read_module_list(path):
    lines = (line.split("#")[0].strip() for line in read_text(path).splitlines())
    modules = [line for line in lines if line]
    for module in modules:
        if not re.fullmatch(r"\w+\.c", module):
            raise Failure(f"{os.path.basename(path)}: '{module}' is not the name of a module")
        if modules.count(module) > 1:
            raise Failure(f"{os.path.basename(path)}: '{module}' is listed twice")
    return modules


def banner(name):
    return "/* " + "=" * 94 + f"\n * {name}\n * " + "=" * 94 + " */\n"


class Amalgamation:
    def __init__(self):
        self.lines = []
        self.inlined = set()
        self.system_includes = set()
        self.digest = hashlib.sha256()

    def add_file(self, name, including):
        """Appends one file and, before their first use, the headers that it includes."""
        text = read_text(os.path.join(FOLDER, name))
        self.digest.update(f"{name}\n{len(text)}\n{text}".encode())
        self.inlined.add(name)
        self.lines += ["", banner(name)]
        conditions = []  # open at this line; an include guard is none
        for number, line in enumerate(text.splitlines(), 1):
            include = INCLUDE.match(line)
            if include is not None:
                self.add_include(line, include, sum(conditions), f"{name}:{number}", including + [name])
                continue
            if CONDITION_BEGINS.match(line):
                conditions.append(GUARD.match(line) is None)
            elif CONDITION_ENDS.match(line):
                if not conditions:
                    raise Failure(f"{name}:{number}: an #endif without its #if")
                conditions.pop()
            self.lines.append(line)
        if conditions:
            raise Failure(f"{name}: an #if without its #endif")

    def add_include(self, line, include, conditions, place, including):
        quoted, system = include.groups()
        if system is not None:
            if conditions == 0 and system in self.system_includes:
                return
            if conditions == 0:
                self.system_includes.add(system)
            self.lines.append(line)
        elif quoted == PUBLIC_HEADER:
            pass
        elif not re.fullmatch(r"\w+\.h", quoted):
            raise Failure(f"{place}: includes '{quoted}', which is not a header of this folder")
        elif quoted in including:
            raise Failure("a cycle of includes: " + " > ".join(including + [quoted]))
        elif conditions > 0:
            raise Failure(f"{place}: includes '{quoted}' inside a condition")
        elif quoted not in self.inlined:
            self.add_file(quoted, including)
            self.lines += ["", f"/* {including[-1]}, continued */"]

    def text(self, modules):
        names = wrap(modules)
        body = re.sub(r"\n{3,}", "\n\n", "\n".join(self.lines))
        prologue = PROLOGUE.replace("{modules}", names).replace("{digest}", self.digest.hexdigest())
        return prologue + body.rstrip("\n") + "\n"


def wrap(words):
    lines, line = [], ""
    for word in words:
        if len(line) + len(word) > 80:
            lines.append(line.rstrip())
            line = ""
        line += word + " "
    return "\n *     ".join(lines + [line.rstrip()])


def amalgamate(modules):
    result = Amalgamation()
    for module in modules:
        result.add_file(module, [])
    text = result.text(modules)
    for number, line in enumerate(text.splitlines(), 1):
        include = INCLUDE.match(line)
        if include is not None and include.group(1) not in (None, PUBLIC_HEADER):
            raise Failure(f"omendb.c:{number}: a quoted include was left over")
    return text


def unlisted_modules(modules):
    return sorted(name for name in os.listdir(FOLDER)
                  if name.endswith(".c") and name not in modules)


def write_if_changed(path, text):
    """Replaces the file at once, so that a compiler beside us never reads a half. An equal file only
    gets a new time, for make."""
    if os.path.exists(path) and read_text(path) == text:
        os.utime(path)
        return
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    os.replace(temporary, path)


def main():
    parser = argparse.ArgumentParser(description="Joins the modules into omendb.c.")
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    parser.add_argument("--modules", default=os.path.join(FOLDER, "modules.txt"))
    parser.add_argument("--output", default=os.path.join(FOLDER, "..", "omendb.c"))
    options = parser.parse_args()
    modules = read_module_list(options.modules)
    text = amalgamate(modules)
    unlisted = unlisted_modules(modules)
    if unlisted and options.modules == parser.get_default("modules"):
        print("amalgamate.py: not in modules.txt: " + " ".join(unlisted), file=sys.stderr)
        if options.check:
            return 1
    if not options.check:
        write_if_changed(options.output, text)
    elif not os.path.exists(options.output) or read_text(options.output) != text:
        print("amalgamate.py: omendb.c is stale; run: make amalgamation", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"amalgamate.py: {failure}", file=sys.stderr)
        sys.exit(1)
