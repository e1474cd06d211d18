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
#            JOBS            of make (the cores)
cd "$(dirname "$0")/.." || exit 1
BUILD=${BUILD:-build}
JOBS=${JOBS:-$(nproc)}
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

# build_and_test_parts FOLDER LIST VARIABLE=VALUE...: only these programs, or parts of them
# (PROGRAM:PART).
build_and_test_parts() {
    folder=$1 list=$2
    shift 2
    make -j"$JOBS" BUILD="$folder" "$@" $(printf '%s\n' $list |
        sed "s,^\([^:]*\).*,$folder/tests/\1," | sort -u) &&
        OMENDB_TEST_SCALE=$CHECK_SCALE BUILD=$folder sh tests/run.sh \
            $(printf "$folder/tests/%s " $list)
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

# Two cannot do without headers of peers, of which one is in no Debian package.
check_benchmarks() {
    for source in bench/*.cpp; do
        case $source in
        bench/bench_graph.cpp | bench/filters_native.cpp)
            g++ -std=c++17 -I. -M "$source" >/dev/null || continue
            ;;
        esac
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

# All of it compiled by clang, most of it run, and the branches of omendb.c that were taken counted.
check_coverage() {
    make -j"$JOBS" BUILD="$BUILD" coverage
}

check_asan() {
    build_and_test "$BUILD/asan" "$CHECK_SCALE" CC=gcc CXX=g++ SANITIZE=address,undefined \
        CFLAGS="-O1 -g1" CXXFLAGS="-O1 -g1" WERROR= PYTHON=false
}

# Programs, and parts of programs, in which more than one thread runs: the others have nothing for it.
threaded="test_concurrency test_ground test_kill test_model test_prepared test_pressure test_processes
    test_tail test_kernels:threads_agree test_large_transactions:readers_are
    test_backup:beside_a_writer test_bad_input:in_the_background
    test_graph:many_threads test_graph:under_its_readers test_graph_bulk:threads
    test_purge:beside_searches test_segment_file:many_threads test_settling:in_the_background
    test_space:in_the_background test_drift:all_codes_at_once
    test_tenants:the_background test_filtered_search:a_batch
    test_hot:a_segment test_hot:no_copy test_hot:what_cannot test_hot:a_copy test_hot:copies_make
    test_hot:searches_go test_hot:mapped_pages test_hot:the_checkpoint test_hot:a_writer"

check_tsan() {
    build_and_test_parts "$BUILD/tsan" "$threaded" CC=gcc SANITIZE=thread CFLAGS="-O1 -g1" WERROR=
}

# What depends on the processor: arithmetic, the order of memory, bytes in files.
emulated="test_backup test_codes test_concurrency test_golden test_ground test_kernels
    test_kernels_emulated test_manifest test_model test_prepared test_processes test_scalar
    test_segment_file test_wal test_json test_documents test_keys_and_metadata
    test_filtered_records test_id_index test_graph:every_metric test_graph:many_threads
    test_graph:under_its_readers"

check_arm64() {
    RUNNER="qemu-aarch64 -cpu max" build_and_test_parts "$BUILD/arm64" "$emulated" \
        CC=aarch64-linux-gnu-gcc AR=aarch64-linux-gnu-ar LDFLAGS=-static
}

# Only tests that compute distances; the kernels' own go through every level themselves.
forced() {
    export OMENDB_KERNELS=$1
    build_and_test "$BUILD" "$CHECK_SCALE" CC=gcc CXX=g++ \
        TESTS="test_bad_input test_codes test_concurrency test_drift test_graph test_model
            test_search_in_transactions"
}

check_kernels_scalar() {
    forced scalar
}

check_kernels_avx2() {
    forced avx2
}

# Each twelfth of the bugs; all of them are for `make planted`.
check_planted() {
    PLANTED_EVERY=12 BUILD="$BUILD" CC=gcc sh tests/planted.sh
}

# ---------------------------------------------------------------------------------------------------
# fuzzing: what was found once, the seeds, and 40 seconds of new inputs for each target

check_fuzz() {
    make -j"$JOBS" BUILD="$BUILD" fuzzers && BUILD=$BUILD/fuzz SECONDS=40 JOBS=$JOBS \
        sh tests/fuzz.sh manifest log segment directory operations both metadata filter
}

# Uninitialised memory in what reads files. Scalar kernels: the sanitizer does not know all vector
# instructions.
check_msan() {
    targets="manifest log segment directory metadata filter"
    make -j"$JOBS" BUILD="$BUILD/msan" FUZZ_ENGINE=0 FUZZ_SANITIZE=memory FUZZ="$targets" fuzzers ||
        return 1
    for name in $targets; do
        seeds=$BUILD/msan/seeds/$name
        grown=$BUILD/fuzz/corpus/$name
        mkdir -p "$seeds" "$grown" &&
            OMENDB_KERNELS=scalar "$BUILD/msan/fuzz/fuzz_$name" --seed-corpus "$seeds" &&
            OMENDB_KERNELS=scalar "$BUILD/msan/fuzz/fuzz_$name" "tests/corpus/$name" "$seeds" \
                "$grown" || return 1
    done
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

# Where there is no AVX-512, AVX2 is what the whole suite ran with.
x86_steps=
grep -q avx512f /proc/cpuinfo 2>/dev/null && x86_steps=kernels_avx2
for name in ${*:-amalgamation format header benchmarks gcc planted symbols libraries vendoring install \
    kernels_scalar $x86_steps coverage asan tsan fuzz msan arm64}; do
    step "$name"
done

for log in $failures; do
    printf '\n---- the end of %s\n' "$log"
    tail -n 30 "$log"
done
[ -n "$failures" ] && echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
