#!/bin/sh
# Everything that CI checks (make check). Prints a line for each step and the total as the last line:
# "N passed, M failed". A step that runs the suite counts as the suite's tests, any other as one.
#
#   tests/check.sh                all steps
#   tests/check.sh NAME...        only these (the names are those of the functions check_NAME below)
#
# The suite runs once in full; the instrumented, emulated and forced builds repeat it with fewer
# repetitions (OMENDB_TEST_SCALE). A tool that is missing fails its step: .ci/run installs all of
# them. Logs stay in $BUILD/check.
#
# Variables: BUILD           folder of the outputs (build)
#            CHECK_SKIP      names of steps to leave out
#            CHECK_SCALE     OMENDB_TEST_SCALE of the repeated suites (0.1)
#            JOBS            of make (2)
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
JOBS=${JOBS:-2}
CHECK_SCALE=${CHECK_SCALE:-0.1}
logs=$BUILD/check
passed=0
failed=0
failures=
mkdir -p "$logs" || exit 1
unset MAKEFLAGS MAKELEVEL MFLAGS OMENDB_KERNELS

warnings="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wvla -Werror"

# build_and_test FOLDER SCALE VARIABLE=VALUE...: the suite, built by make in a folder of its own.
build_and_test() {
    folder=$1 scale=$2
    shift 2
    make -j"$JOBS" BUILD="$folder" "$@" tests &&
        OMENDB_TEST_SCALE=$scale make BUILD="$folder" "$@" test
}

# fails_if_any TEXT: prints the text and fails unless it is empty.
fails_if_any() {
    [ -z "$1" ] || { echo "$1"; false; }
}

# ---------------------------------------------------------------------------------------------------
# what needs no build

check_amalgamation() {
    python3 amalgamation/amalgamate.py --check
}

check_format() {
    clang-format --dry-run -Werror omendb.h $(find amalgamation tests examples bench \
        -name '*.c' -o -name '*.h' -o -name '*.cpp' -o -name '*.hpp')
}

check_header() {
    for compiler in gcc clang; do
        for standard in c99 c11; do
            $compiler -x c -std=$standard $warnings -fsyntax-only omendb.h || return 1
        done
    done
    for compiler in g++ clang++; do
        $compiler -x c++ -std=c++17 -Wall -Wextra -Wpedantic -Wshadow -Werror -fsyntax-only \
            omendb.h || return 1
    done
}

check_benchmarks() {
    for source in bench/*.cpp; do
        g++ -std=c++17 -Wall -Wextra -Werror -I. -fsyntax-only "$source" || return 1
    done
    python3 -c 'import ast, sys; [ast.parse(open(p).read(), p) for p in sys.argv[1:]]' \
        bench/*.py amalgamation/*.py examples/*/*.py
}

# ---------------------------------------------------------------------------------------------------
# the suite, in several builds

check_gcc() {
    build_and_test "$BUILD" "${OMENDB_TEST_SCALE:-1}" CC=gcc CXX=g++
}

check_clang() {
    build_and_test "$BUILD/clang" "$CHECK_SCALE" CC=clang CXX=clang++
}

check_asan() {
    build_and_test "$BUILD/asan" "$CHECK_SCALE" CC=gcc CXX=g++ SANITIZE=address,undefined \
        CFLAGS="-O1 -g" CXXFLAGS="-O1 -g" WERROR= PYTHON=false
}

# What is left out takes minutes here: of it the tests about threads run first. test_hot needs
# more than the time that the suite gives a program; of its merges one is enough.
check_tsan() {
    make BUILD="$BUILD/tsan" CC=gcc SANITIZE=thread CFLAGS="-O1 -g" WERROR= \
        "$BUILD/tsan/tests/test_graph_bulk" "$BUILD/tsan/tests/test_hot" &&
        "$BUILD/tsan/tests/test_graph_bulk" threads &&
        for name in a_segment no_copy what_cannot a_copy copies_make searches_go mapped_pages \
            the_checkpoint a_writer; do
            "$BUILD/tsan/tests/test_hot" "$name" || return 1
        done &&
        build_and_test "$BUILD/tsan" "$CHECK_SCALE" CC=gcc CXX=g++ SANITIZE=thread \
            CFLAGS="-O1 -g" CXXFLAGS="-O1 -g" WERROR= \
            TESTS="$(tests_without 'kernels|calibration|graph_bulk|sessions|hot')"
}

# What is left out takes minutes under emulation, and has nothing of its own for this processor.
check_arm64() {
    build_and_test "$BUILD/arm64" "$CHECK_SCALE" CC=aarch64-linux-gnu-gcc \
        CXX=aarch64-linux-gnu-g++ AR=aarch64-linux-gnu-ar LDFLAGS=-static \
        RUNNER="qemu-aarch64 -cpu max" PYTHON=false \
        TESTS="$(tests_without 'calibration|graph_bulk|drift|hot|sessions')"
}

# tests_without PATTERN: test programs in C but those of that pattern.
tests_without() {
    ls tests/test_*.c tests/fault_*.c tests/crash_*.c | sed 's,tests/\(.*\)\.c,\1,' |
        grep -v -E "$1" | tr '\n' ' '
}

# Only tests that compute distances; the kernels' own go through every level themselves.
forced() {
    export OMENDB_KERNELS=$1
    build_and_test "$BUILD" "$CHECK_SCALE" CC=gcc CXX=g++ \
        TESTS="$(tests_without 'kernels|ground|scalar|manifest|segment_file|wal|fault|crash|kill')"
}

check_kernels_scalar() {
    forced scalar
}

check_kernels_avx2() {
    forced avx2
}

# ---------------------------------------------------------------------------------------------------
# what users get

check_symbols() {
    make -j"$JOBS" BUILD="$BUILD" >/dev/null &&
        fails_if_any "$(nm -D --defined-only "$BUILD/libomendb.so" |
            awk '$3 !~ /^omendb_/ { print "exported: " $3 }')" &&
        fails_if_any "$(nm -g --defined-only "$BUILD/libomendb.a" |
            awk 'NF == 3 && $3 !~ /^omendb_/ { print "global: " $3 }')"
}

check_libraries() {
    fails_if_any "$(readelf -d "$BUILD/libomendb.so" |
        sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
        grep -v -e '^libc\.so' -e '^libm\.so' -e '^ld-linux')"
}

# A stranger's first minutes: two files and the program of the README, in an empty folder.
check_vendoring() {
    folder=$(mktemp -d) || return 1
    cp omendb.c omendb.h "$folder"
    sed -n '/^```c$/,/^```$/p' README.md | sed -e '/^```$/q' | grep -v '^```' >"$folder/app.c"
    (
        cd "$folder" || exit 1
        for compiler in gcc clang; do
            rm -rf ./*.omen
            $compiler -std=c11 app.c omendb.c -o app -lm -lpthread && ./app || exit 1
        done
    )
    status=$?
    rm -rf "$folder"
    return $status
}

check_install() {
    folder=$(mktemp -d) || return 1
    sed -n '/^```c$/,/^```$/p' README.md | sed -e '/^```$/q' | grep -v '^```' >"$folder/app.c"
    make BUILD="$BUILD" PREFIX="$folder/usr" install &&
        gcc -std=c11 "$folder/app.c" -I"$folder/usr/include" -L"$folder/usr/lib" -lomendb \
            -o "$folder/app" &&
        (cd "$folder" && LD_LIBRARY_PATH=$folder/usr/lib ./app) &&
        make BUILD="$BUILD" PREFIX="$folder/usr" uninstall &&
        fails_if_any "$(find "$folder/usr" -type f)"
    status=$?
    rm -rf "$folder"
    return $status
}

# ---------------------------------------------------------------------------------------------------

# step NAME: runs check_NAME, adds to the totals, prints the line.
step() {
    case " ${CHECK_SKIP:-} " in *" $1 "*) return ;; esac
    log=$logs/$1.log
    began=$(date +%s)
    ("check_$1") >"$log" 2>&1 </dev/null
    status=$?
    took=$(($(date +%s) - began))
    counts=$(sed -n 's/^\([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed$/\1 \2/p' "$log" | tail -n 1)
    good=${counts% *} bad=${counts#* }
    if [ -z "$counts" ]; then
        good=$((status == 0)) bad=$((status != 0))
    elif [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
        bad=1
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    if [ "$bad" -eq 0 ]; then
        printf '%-16s %5d passed             %5d s\n' "$1" "$good" "$took"
    else
        failures="$failures $log"
        printf '%-16s %5d passed, %3d FAILED %5d s: see %s\n' "$1" "$good" "$bad" "$took" "$log"
    fi
}

x86_steps=
case $(uname -m) in x86_64) x86_steps=kernels_avx2 ;; esac
for name in ${*:-amalgamation format header benchmarks gcc symbols libraries vendoring install \
    kernels_scalar $x86_steps clang asan tsan arm64}; do
    step "$name"
done

for log in $failures; do
    printf '\n---- the end of %s\n' "$log"
    tail -n 30 "$log"
done
[ -n "$failures" ] && echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
