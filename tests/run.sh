#!/bin/sh
# Runs the programs given, some at once, and prints a line for each and the total as the last line:
# "N passed, M failed". Exits 1 if anything failed.
#
# A program whose last line is "N passed, M failed" counts as that many tests, any other (an example)
# as one, passed if it exits 0. A program that dies or says nothing of a failure but exits otherwise
# counts as one failure more. Each gets an empty folder to work in: by the environment variable
# OMENDB_TEST_DIRECTORY, and as its first argument if it is an example.
#
# PROGRAM:PART runs only those tests of a program whose names contain the part; there must be one.
#
# Variables: BUILD     where libomendb is, and where the folders and logs go (build)
#            RUNNER    put before every program, as "qemu-aarch64 -cpu max"
#            LIMIT     seconds that one program may take (900); 0: no limit
#            RUN_JOBS  programs at once (the cores, at most 4)
#            PYTHON    runs the Python examples, if it has numpy (python3), and if the shared library
#                      was built
build=${BUILD:-build}
limit=${LIMIT:-900}
work=$build/run
mkdir -p "$work" || exit 1
case $work in
/*) folder=$work ;;
*) folder=$PWD/$work ;; # a program may change to another
esac
command -v timeout >/dev/null || limit=0

part= # of a program, if it is to run a part of its tests

# run NAME COMMAND...: runs, prints the line, leaves "passed failed" in NAME.counts.
run() {
    name=$1
    shift
    log=$work/$name.log
    rm -rf "${work:?}/$name"
    mkdir -p "$work/$name"
    began=$(date +%s)
    if [ "$limit" = 0 ]; then
        OMENDB_TEST_DIRECTORY=$folder/$name "$@" >"$log" 2>&1 </dev/null
    else
        OMENDB_TEST_DIRECTORY=$folder/$name timeout "$limit" "$@" >"$log" 2>&1 </dev/null
    fi
    status=$?
    took=$(($(date +%s) - began))
    counts=$(tail -n 1 "$log" | sed -n 's/^\([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed$/\1 \2/p')
    if [ -n "$counts" ]; then
        good=${counts% *}
        bad=${counts#* }
        [ "$status" -ne 0 ] && [ "$bad" -eq 0 ] && bad=1
        [ -n "$part" ] && [ "$good" -eq 0 ] && [ "$bad" -eq 0 ] && bad=1
    elif [ "$status" -eq 0 ]; then
        good=1
        bad=0
    else
        good=0
        bad=1
    fi
    echo "$good $bad" >"$work/$name.counts"
    if [ "$bad" -eq 0 ]; then
        printf '%-28s %5d passed  %4d s\n' "$name" "$good" "$took"
        rm -rf "${work:?}/$name"
    else
        printf '%-28s %5d passed, %d FAILED  %4d s, exit status %d: see %s\n' \
            "$name" "$good" "$bad" "$took" "$status" "$log"
    fi
}

# The same script runs each program: run.sh --one PROGRAM.
if [ "$1" = --one ]; then
    program=$2
    name=$(basename "$program" | tr : .)
    case $program in
    examples/python/*)
        name=python_$(basename "$program" .py)
        OMENDB_LIBRARY=$OMENDB_LIBRARY PYTHONPATH=examples/python PYTHONDONTWRITEBYTECODE=1 \
            run "$name" "$PYTHON" "$program" "$folder/$name/database"
        ;;
    */examples/*) run "$name" $RUNNER "$program" "$folder/$name/database" ;;
    *.py) BUILD=$(cd "$build" && pwd) run "$name" "$PYTHON" "$program" ;;
    *.sh) BUILD=$(cd "$build" && pwd) run "$name" sh "$program" ;;
    *:*)
        part=${program#*:}
        run "$name" $RUNNER "${program%%:*}" "$part"
        ;;
    *) run "$name" $RUNNER "$program" ;;
    esac
    exit 0
fi

# A system's own Python often has numpy where the first one in the path has not.
PYTHON=${PYTHON:-python3}
if ! "$PYTHON" -c 'import numpy' 2>/dev/null && [ "$PYTHON" = python3 ] &&
    /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
    PYTHON=/usr/bin/python3
fi

# Python examples need the shared library of this very machine.
OMENDB_LIBRARY=$build/libomendb.so
[ -e "$OMENDB_LIBRARY" ] || OMENDB_LIBRARY=$build/libomendb.dylib
python_examples=
if [ -e "$OMENDB_LIBRARY" ] && case "$*" in *examples/*) true ;; *) false ;; esac; then
    if "$PYTHON" -c 'import numpy' 2>/dev/null; then
        python_examples=$(ls examples/python/*.py | grep -v /omendb.py)
    else
        echo "python examples              skipped: $PYTHON has no numpy"
    fi
fi

# Of a sanitizer, too, a block larger than there can be is NULL, as of any malloc.
for tool in ASAN TSAN; do
    eval "export ${tool}_OPTIONS=allocator_may_return_null=1:\${${tool}_OPTIONS:-}"
done

jobs=${RUN_JOBS:-$(getconf _NPROCESSORS_ONLN)}
[ "$jobs" -gt 4 ] && jobs=4
export BUILD="$build" RUNNER LIMIT="$limit" PYTHON OMENDB_LIBRARY
rm -f "$work"/*.counts
printf '%s\n' "$@" $python_examples | xargs -n 1 -P "$jobs" sh "$0" --one

passed=0
failed=0
for program in "$@" $python_examples; do
    name=$(basename "$program" | tr : .)
    case $program in examples/python/*) name=python_${name%.py} ;; esac
    read -r good bad <"$work/$name.counts" || { good=0 bad=1; }
    passed=$((passed + good))
    failed=$((failed + bad))
    if [ "$bad" -ne 0 ]; then
        echo
        echo "---- the end of $work/$name.log"
        tail -n 25 "$work/$name.log"
    fi
done
[ "$failed" -ne 0 ] && echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
