#!/bin/sh
# Runs the examples and looks at what they print; compiles the ten lines at the top of omendb.h, as a
# reader would paste them. Programs and library lie in BUILD (build); RUNNER is put before each program;
# OMENDB_TEST_DIRECTORY is an empty folder to work in. Run it in the folder of the Makefile. The last
# line is "N passed, M failed".
build=${BUILD:-build}
python=${PYTHON:-python3}
passed=0
failed=0
made=
if [ -z "$OMENDB_TEST_DIRECTORY" ]; then
    made=$(mktemp -d) || exit 1
    OMENDB_TEST_DIRECTORY=$made
fi
work=$(cd "$OMENDB_TEST_DIRECTORY" && pwd) || exit 1

# prints NAME TEXT COMMAND...: the command must exit with 0 and print TEXT.
prints() {
    name=$1
    text=$2
    shift 2
    if "$@" >"$work/log" 2>&1 && grep -q -e "$text" "$work/log"; then
        passed=$((passed + 1))
        echo "ok $name"
    else
        failed=$((failed + 1))
        cat "$work/log"
        echo "FAILED $name: \"$text\" was expected"
    fi
}

# The snippet stands in the comment behind "In ten lines:", up to the line that closes the database.
ten_lines() {
    cat <<'HEAD'
#include "omendb.h"
#include <stdio.h>
int main(void)
{
HEAD
    sed -n '/In ten lines:/,/omendb_close(db)/s/^ \* \{5\}//p' omendb.h
    cat <<'TAIL'
    printf("found %d: %d\n", (int)found, (int)ids[0]);
    (void)distances;
    return 0;
}
TAIL
}

# compiled NAME TEXT: the program NAME.c in the folder of work must compile, and print TEXT there.
compiled() {
    if "${CC:-cc}" -std=c11 -Wall -Wextra -I. "$work/$1.c" "$build/libomendb.a" -o "$work/$1" \
        -lm -lpthread; then
        root=$(pwd)
        cd "$work" || exit 1
        prints "$1" "$2" "./$1"
        cd "$root" || exit 1
    else
        failed=$((failed + 1))
        echo "FAILED $1: it does not compile"
    fi
}

prints example "near (0.86 0.08 0.24):  red" $RUNNER "$build/examples/example" "$work/c.omen"
prints example_again "11 records, 10 in the snapshot" \
    $RUNNER "$build/examples/example" "$work/c.omen"
prints example_cpp "like a fox, before: .*  3 (" $RUNNER "$build/examples/example_cpp" "$work/cpp.omen"
prints example_cpp_again "as expected: not found" \
    $RUNNER "$build/examples/example_cpp" "$work/cpp.omen"
prints filtered "editors in C or Rust, below 4000 KiB: 13 packages" \
    $RUNNER "$build/examples/filtered" "$work/f.omen"
prints filtered_by_section "1475 graphical packages in 37 sections: games 301 x11 175 sound 108" \
    $RUNNER "$build/examples/filtered" "$work/f.omen"
prints filtered_in_pages "62 packages about video on 21 pages" \
    $RUNNER "$build/examples/filtered" "$work/f.omen"
prints filtered_again "4 deleted, 4996 packages left" \
    $RUNNER "$build/examples/filtered" "$work/f.omen"
prints demo "^Done, " $RUNNER "$build/examples/demo" "$work/demo.omen"
prints demo_again "verified in .* 0 problems" $RUNNER "$build/examples/demo" "$work/demo.omen"

mkdir "$work/precious"
echo letter >"$work/precious/letter.txt"
if $RUNNER "$build/examples/demo" "$work/precious" >"$work/log" 2>&1 ||
    [ "$(cat "$work/precious/letter.txt")" != letter ]; then
    failed=$((failed + 1))
    echo "FAILED demo_leaves_other_folders_alone"
else
    passed=$((passed + 1))
    echo "ok demo_leaves_other_folders_alone"
fi

# A plain library for this machine is there exactly where the shared one is.
if [ -e "$build/libomendb.so" ] || [ -e "$build/libomendb.dylib" ]; then
    ten_lines >"$work/ten_lines_of_the_header.c"
    compiled ten_lines_of_the_header "found 1: 7"
    if "$python" -c 'import numpy' 2>/dev/null; then
        [ -e "$build/libomendb.so" ] && library=libomendb.so || library=libomendb.dylib
        prints python_example "after opening again: 1997 records" env PYTHONDONTWRITEBYTECODE=1 \
            OMENDB_LIBRARY="$build/$library" "$python" examples/python/example.py "$work/py.omen"
    else
        echo "skipped python_example: $python has no numpy"
    fi
fi

[ -n "$made" ] && rm -rf "$made"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
