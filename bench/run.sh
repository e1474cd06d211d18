#!/bin/sh
# Runs the benchmarks; tables on the terminal, the same rows as CSV and a plot in build/bench.
#
#   make bench                          all of them over 1,000,000 rows: hours on two cores
#   OMENDB_BENCH=quick make bench       all of them over 100,000 rows
#   bench/run.sh search open            only these (build first, then search, reuses the indexes)
#   bench/run.sh peers                  OmenDB beside the libraries of PyPI, on every set that is there
#   bench/run.sh ids                    lookups and scans by id beside a B-tree and SQLite
#   bench/run.sh commit recovery mixed  durable commits beside SQLite, a log of 1 GB replayed, and
#                                       searches beside a writer at full speed
#   bench/run.sh filters                searches under conditions on metadata, OmenDB beside FAISS,
#                                       hnswlib, USearch, LanceDB, zvec, sqlite-vec and the package
#                                       omendb: 200,000 rows, 25 minutes; goes on where it was ended
#   bench/run.sh keys                   10,000,000 random and adversarial ids, and keys, added
#   bench/run.sh tenants                ten thousand small collections in one database
#   HNSWLIB=folder bench/run.sh filter  searches under a condition, beside the hnswlib (0.8 or later)
#                                       of which the folder has hnswlib/hnswlib.h; else alone
#   OMENDB_BENCH_DATA=text bench/run.sh build search
#                                       another set: sift (default), text, wide or growth
#   OMENDB_BENCH_DATA=growth OMENDB_BENCH_ROWS=10000000 OMENDB_BENCH_QUERIES=1000 \
#       OMENDB_BENCH_PEERS=none bench/run.sh build search
#                                       ten million rows; the peers alone would take hours
#
# Sets: sift-dev is there or comes from ../shared/data (bench/bench.cpp); the others are made, once:
#   python3 -m venv build/venv
#   build/venv/bin/pip install -r bench/datasets/requirements.txt
#   build/venv/bin/python bench/datasets/make_text.py     real text, 384-d; hours, can be interrupted
#   build/venv/bin/python bench/datasets/make_wide.py     synthetic, 768-d; a minute
#   build/venv/bin/python bench/datasets/make_growth.py   10,000,000 rows like those of sift-dev
# The libraries of PyPI, in an environment of their own, since they want another numpy:
#   python3 -m venv build/peers && build/peers/bin/pip install -r bench/requirements.txt
# and those of filters, with the sources of two of them:
#   python3 -m venv build/filters && build/filters/bin/pip install -r bench/filters-requirements.txt
#   build/filters/bin/pip download --no-deps --no-binary hnswlib,usearch -d build/filters \
#       hnswlib==0.8.0 usearch==2.26.6
#
# Needs a C++17 compiler. Peers that are not installed (Debian: libhnswlib-dev, libfaiss-dev,
# libsqlite3-dev, libabsl-dev) are left out. OmenDB is compiled as its users do, without -m flags;
# hnswlib, which is a header, with -O3 -march=native; FAISS is what the system has.
set -eu
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build}
CC=${CC:-cc}
CXX=${CXX:-c++}
CXXFLAGS=${CXXFLAGS:--O3 -march=native}
results=${OMENDB_BENCH_DIR:-$BUILD/bench}
objects=$BUILD/bench/objects
export OMENDB_BENCH_DIR="$results"
if [ "${OMENDB_BENCH:-}" = quick ]; then
    export OMENDB_BENCH_ROWS="${OMENDB_BENCH_ROWS:-100000}"
    export OMENDB_BENCH_QUERIES="${OMENDB_BENCH_QUERIES:-2000}"
    export OMENDB_BENCH_CHURN_ROWS="${OMENDB_BENCH_CHURN_ROWS:-20000}"
    export OMENDB_BENCH_COMMIT_SECONDS="${OMENDB_BENCH_COMMIT_SECONDS:-3}"
    export OMENDB_BENCH_RECOVERY_MB="${OMENDB_BENCH_RECOVERY_MB:-256}"
    export OMENDB_BENCH_IDS_ROWS="${OMENDB_BENCH_IDS_ROWS:-1000000}"
    export OMENDB_BENCH_KEYS_ROWS="${OMENDB_BENCH_KEYS_ROWS:-1000000}"
    export OMENDB_BENCH_MIXED_ROWS="${OMENDB_BENCH_MIXED_ROWS:-40000}"
fi
# Huge pages for everybody's malloc: without them the libraries in memory lose up to a half.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}" # idle threads of FAISS do not spin
mkdir -p "$objects" "$results"

# has HEADER LIBRARIES: whether a program that includes it can be linked.
has() {
    printf '#include <%s>\nint main(){}\n' "$1" >"$objects/has.cpp"
    "$CXX" -std=c++17 -fopenmp "$objects/has.cpp" $2 -o "$objects/has" 2>"$objects/has.log"
}

compile() { # compile OUTPUT SOURCE FLAGS...: only when the source or a header is newer
    output=$1 source=$2
    shift 2
    if [ ! -e "$output" ] || [ -n "$(find "$source" omendb.h bench/*.h -newer "$output")" ]; then
        "$@" -c "$source" -o "$output"
    fi
}

build() {
    libraries="-lm -lpthread"
    openmp=
    if has faiss/IndexHNSW.h "-lfaiss -llapack -lblas"; then
        openmp=-fopenmp
        libraries="-lfaiss -llapack -lblas $libraries"
    else
        echo "FAISS (libfaiss-dev) is not here and is left out"
    fi
    if has sqlite3.h -lsqlite3; then
        libraries="-lsqlite3 $libraries"
    else
        echo "SQLite (libsqlite3-dev) is not here and is left out"
    fi
    compile "$objects/omendb.o" omendb.c "$CC" -std=c11 -O2
    for name in bench "$@"; do
        [ "$name" = bench_filter ] ||
            compile "$objects/$name.o" "bench/$name.cpp" "$CXX" -std=c++17 -O3 -I.
    done
    compile "$objects/peers.o" bench/peers.cpp "$CXX" -std=c++17 $CXXFLAGS $openmp -I.
    # Like a peer: hnswlib is a header.
    compile "$objects/bench_filter.o" bench/bench_filter.cpp "$CXX" -std=c++17 $CXXFLAGS -w -I. \
        ${HNSWLIB:+-I "$HNSWLIB"}
    for name in "$@"; do
        "$CXX" $openmp "$objects/$name.o" "$objects/bench.o" "$objects/peers.o" \
            "$objects/omendb.o" -o "$BUILD/bench/$name" $libraries
    done
    build_ids
}

# With the bare model, which is inside of omendb.c.
build_ids() {
    absl="-labsl_throw_delegate -labsl_raw_logging_internal -labsl_base"
    if ! has absl/container/btree_map.h "$absl"; then
        echo "Abseil (libabsl-dev) is not here and its B-tree is left out"
        absl=
    fi
    [ "$objects/ids_core.o" -nt omendb.c ] || rm -f "$objects/ids_core.o"
    compile "$objects/ids_core.o" bench/ids_core.c "$CC" -std=c11 -O2 -I.
    compile "$objects/bench_ids.o" bench/bench_ids.cpp "$CXX" -std=c++17 $CXXFLAGS -I.
    "$CXX" "$objects/bench_ids.o" "$objects/bench.o" "$objects/ids_core.o" \
        -o "$BUILD/bench/bench_ids" $absl $libraries
}

# The peers of PyPI; PEERS_PYTHON is the interpreter that has them.
run_peers() {
    python=${PEERS_PYTHON:-$BUILD/peers/bin/python}
    if [ ! -x "$python" ]; then
        echo "$python is not there and the libraries of PyPI are left out: see bench/run.sh"
        return 0
    fi
    "$python" bench/peers.py --out "$results" --programs "$BUILD/bench" \
        --rows "${OMENDB_BENCH_ROWS:-1000000}" --queries "${OMENDB_BENCH_QUERIES:-10000}" \
        ${OMENDB_BENCH_DATA:+--data "$OMENDB_BENCH_DATA"}
}

# Those under conditions; FILTERS_PYTHON is the interpreter that has them.
run_filters() {
    python=${FILTERS_PYTHON:-$BUILD/filters/bin/python}
    if [ ! -x "$python" ]; then
        echo "$python is not there and filters is left out: see bench/run.sh"
        return 0
    fi
    data=${OMENDB_DATA:-$BUILD/data} # as bench.cpp, but without building it
    mkdir -p "$data"
    for file in sift-dev.base.u8bin sift-dev.query.u8bin; do
        if [ ! -e "$data/$file" ] && [ -e "../shared/data/$file.gz" ]; then
            gunzip -c "../shared/data/$file.gz" >"$data/$file.part"
            mv "$data/$file.part" "$data/$file"
        fi
    done
    if [ ! "$BUILD/bench/libomendb.so" -nt omendb.c ]; then
        "$CC" -std=c11 -O2 -fPIC -shared omendb.c -o "$BUILD/bench/libomendb.so" -lm -lpthread
    fi
    native=$BUILD/bench/filters_native.so
    if [ ! "$native" -nt bench/filters_native.cpp ]; then
        sources=${FILTERS_SOURCES:-$BUILD/filters}
        for archive in "$sources"/hnswlib-*.tar.gz "$sources"/usearch-*.tar.gz; do
            [ ! -e "$archive" ] || tar -xzf "$archive" -C "$objects"
        done
        "$CXX" -std=c++17 $CXXFLAGS -w -fPIC -shared -DUSEARCH_USE_NUMKONG=1 -DNK_DYNAMIC_DISPATCH=1 \
            -DUSEARCH_USE_OPENMP=0 $(find "$objects" -maxdepth 1 \( -name "hnswlib-*" -o -name \
            "usearch-*" \) -printf "-I %p -I %p/include -I %p/numkong/include ") \
            bench/filters_native.cpp -o "$native" 2>"$objects/has.log" ||
            echo "the sources of hnswlib and USearch are not here, both are left out: see bench/run.sh"
    fi
    "$python" bench/filters.py --out "$results/filters" --folder "$data" --native "$native" \
        --library "$BUILD/bench/libomendb.so" --rows "${OMENDB_BENCH_ROWS:-200000}" \
        --queries "${OMENDB_BENCH_QUERIES:-1000}" &&
        "$python" bench/plot_filters.py "$results/filters/filters.csv" "$results/filters.svg"
}

all="build search batch peers ingest open churn commit recovery mixed ids keys tenants filter filters"
chosen=${*:-$all}
[ "$chosen" = filters ] || # which needs none of them
    build bench_build bench_search bench_batch bench_ingest bench_open bench_churn bench_commit \
        bench_recovery bench_mixed bench_keys bench_tenants bench_filter
[ $# -gt 0 ] || [ ! -x "$BUILD/bench/bench_kernels" ] || "$BUILD/bench/bench_kernels"

failed=0
for name in $chosen; do
    printf '\n== %s\n' "$name"
    case $name in
    peers) run_peers || failed=$((failed + 1)) ;;
    filters) run_filters || failed=$((failed + 1)) ;;
    *) "$BUILD/bench/bench_$name" || failed=$((failed + 1)) ;;
    esac
done
for curves in search peers; do
    if [ -s "$results/$curves.csv" ] && command -v python3 >/dev/null; then
        python3 bench/plot.py "$results/$curves.csv" "$results/$curves.svg"
        printf '\nplot: %s\n' "$results/$curves.svg"
    fi
done
[ "$failed" -eq 0 ] || { echo "$failed of the benchmarks failed"; exit 1; }
