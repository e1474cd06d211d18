#!/bin/sh
# Runs libFuzzer on the targets named, JOBS at a time: each begins with its committed corpus, its
# seeds, and what it found before. Prints a line for each target: executions, features of coverage,
# inputs found. Exits 1 if anything was found; "N passed, M failed" is the last line.
#
# Variables: BUILD    where the programs are, the corpus grows and findings go (build/fuzz)
#            SECONDS  for each target (3600)
#            JOBS     targets at a time (1)
cd "$(dirname "$0")/.." || exit 1
folder=${BUILD:-build/fuzz}
seconds=${SECONDS:-3600}
jobs=${JOBS:-1}
passed=0
failed=0

# A run is slow under sanitizers on a busy machine, never as slow as this; none needs such memory.
limits="-timeout=20 -rss_limit_mb=1024 -malloc_limit_mb=512"

# fuzz_one NAME
fuzz_one() {
    corpus=$folder/corpus/$1
    found=$folder/found/$1
    mkdir -p "$corpus" "$found" "$folder/seeds/$1"
    "$folder/fuzz_$1" --seed-corpus "$folder/seeds/$1" >/dev/null || return 1
    committed=
    [ -d "tests/corpus/$1" ] && committed=tests/corpus/$1
    "$folder/fuzz_$1" -max_total_time="$seconds" -max_len=65536 $limits -print_final_stats=1 \
        -artifact_prefix="$found/" "$corpus" $committed "$folder/seeds/$1" \
        >"$folder/$1.log" 2>&1
}

# report NAME STATUS
report() {
    log=$folder/$1.log
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    features=$(grep -a -o 'ft: [0-9]*' "$log" | tail -n 1)
    if [ "$2" -eq 0 ]; then
        passed=$((passed + 1))
        result=ok
    else
        failed=$((failed + 1))
        result="FAILED, see $log: $(grep -a -E '^SUMMARY|not true' "$log" | head -n 1)"
    fi
    printf '%-12s %10s executions, %s: %s\n' "$1" "${runs:-no}" "${features:-no coverage}" "$result"
}

while [ $# -gt 0 ]; do
    batch=
    for name in "$@"; do
        [ "$(echo "$batch" | wc -w)" -lt "$jobs" ] && batch="$batch $name"
    done
    for name in $batch; do
        (
            fuzz_one "$name"
            echo $? >"$folder/$name.status"
        ) &
    done
    wait
    for name in $batch; do
        report "$name" "$(cat "$folder/$name.status")"
        shift
    done
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
