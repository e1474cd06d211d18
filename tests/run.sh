#!/bin/sh
# Runs the programs given, and prints a line for each and the total as the last line:
# "N passed, M failed". Exits 1 if anything failed.
#
# A program whose last line is "N passed, M failed" counts as that many tests, any other (an example)
# as one, passed if it exits 0. A program that dies or says nothing of a failure but exits otherwise
# counts as one failure more. Each gets an empty folder to work in: by the environment variable
# OMENDB_TEST_DIRECTORY, and as its first argument if it is an example.
#
# Variables: BUILD     where libomendb is, and where the folders and logs go (build)
#            RUNNER    put before every program, as "qemu-aarch64 -cpu max"
#            LIMIT     seconds that one program may take (600); 0: no limit
#            PYTHON    runs the Python examples, if it has numpy (python3), and if the shared library
#                      was built
build=${BUILD:-build}
limit=${LIMIT:-600}
python=${PYTHON:-python3}
passed=0
failed=0
failures=

work=$build/run
mkdir -p "$work" || exit 1
case $work in
/*) folder=$work ;;
*) folder=$PWD/$work ;; # a program may change to another
esac
command -v timeout >/dev/null || limit=0
absolute=$(cd "$build" && pwd) || exit 1
# A system's own Python often has numpy where the first one in the path has not.
if ! "$python" -c 'import numpy' 2>/dev/null && [ "$python" = python3 ] &&
    /usr/bin/python3 -c 'import numpy' 2>/dev/null; then
    python=/usr/bin/python3
fi

# run NAME COMMAND...: runs, adds to the totals, prints the line.
run() {
    name=$1
    shift
    log=$work/$name.log
    rm -rf "$work/$name"
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
    elif [ "$status" -eq 0 ]; then
        good=1
        bad=0
    else
        good=0
        bad=1
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    if [ "$bad" -eq 0 ]; then
        printf '%-28s %5d passed  %4d s\n' "$name" "$good" "$took"
        rm -rf "${work:?}/$name"
    else
        failures="$failures $log"
        printf '%-28s %5d passed, %d FAILED  %4d s, exit status %d: see %s\n' \
            "$name" "$good" "$bad" "$took" "$status" "$log"
    fi
}

for program in "$@"; do
    name=$(basename "$program")
    case $program in
    */examples/*) run "$name" $RUNNER "$program" "$folder/$name/database" ;;
    *.py) BUILD=$absolute run "$name" "$python" "$program" ;;
    *.sh) BUILD=$absolute PYTHON=$python run "$name" sh "$program" ;;
    *) run "$name" $RUNNER "$program" ;;
    esac
done

# Python examples need the shared library of this very machine.
library=$build/libomendb.so
[ -e "$library" ] || library=$build/libomendb.dylib
if [ -e "$library" ] && [ -n "$(ls examples/python/*.py 2>/dev/null)" ] &&
    case "$*" in *examples/*) true ;; *) false ;; esac; then
    if "$python" -c 'import numpy' 2>/dev/null; then
        for program in examples/python/*.py; do
            name=$(basename "$program" .py)
            [ "$name" = omendb ] && continue
            OMENDB_LIBRARY=$library PYTHONPATH=examples/python PYTHONDONTWRITEBYTECODE=1 \
                run "python_$name" "$python" "$program" "$folder/python_$name/database"
        done
    else
        echo "python examples              skipped: $python has no numpy"
    fi
fi

for log in $failures; do
    echo
    echo "---- the end of $log"
    tail -n 25 "$log"
done
[ -n "$failures" ] && echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
