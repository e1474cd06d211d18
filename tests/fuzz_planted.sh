#!/bin/sh
# Shows that the fuzzers find what they are for: in a copy of omendb.c checks are put out of force,
# one at a time, and the target that should notice runs from its seeds. A campaign, not part of the
# suite: it takes minutes. Prints a line for each; the last line is "N passed, M failed".
#
# Variables: BUILD    folder of the outputs (build)
#            SECONDS  at most, for each (120)
#            PLANTED  numbers of the checks (all)
cd "$(dirname "$0")/.." || exit 1
folder=${BUILD:-build}/planted
seconds=${SECONDS:-120}
passed=0
failed=0
mkdir -p "$folder" || exit 1

cat >"$folder/planted.h" <<'HEADER'
#include <stdlib.h>
/* Whether this check is out of force in this process. */
static inline int planted(int number)
{
    static int which = -1;
    if (which < 0)
        which = getenv("FUZZ_PLANTED") == NULL ? 0 : atoi(getenv("FUZZ_PLANTED"));
    return which == number;
}
HEADER

# plant NUMBER TEXT [OTHERWISE]: the condition TEXT never holds any more, or is OTHERWISE.
cp omendb.c "$folder/omendb.c" || exit 1
plant() {
    python3 - "$folder/omendb.c" "$1" "$2" "${3:-0}" <<'PYTHON' || exit 1
import sys
path, number, text, otherwise = sys.argv[1:]
source = open(path).read()
if text not in source:
    sys.exit("omendb.c has no longer: " + text)
open(path, "w").write(source.replace(text, "(planted(%s) ? %s : (%s))" % (number, otherwise, text)))
PYTHON
}
plant 1 'neighbour < count ? neighbour : row' 'neighbour'
plant 2 'range.length > data - range.offset'
plant 3 'frame->total > reader->size - offset'
plant 4 'count > (input->length - input->at) / item'
plant 5 'info->entry_row >= info->indexed_rows'
plant 5 'entry >= view->count'
plant 6 'range.length == expected' '1'
plant 6 'sections[type].length < segment_section_needs(info, type)'
plant 7 'bytes > logged.left'
plant 8 'found >= segment->info.rows'
plant 9 'block >= view->upper_count || level > view->upper_count - block'

make BUILD="$folder" FUZZ_SOURCE="$folder/omendb.c" \
    FUZZ_CFLAGS="-O1 -g -D_GNU_SOURCE -include $folder/planted.h" \
    FUZZ="manifest log segment" fuzzers >"$folder/make.log" 2>&1 || {
    tail "$folder/make.log"
    exit 1
}

# seek NUMBER TARGET WHAT
seek() {
    case " ${PLANTED:-$1} " in *" $1 "*) ;; *) return ;; esac
    seeds=$folder/seeds/$2
    log=$folder/$1.log
    mkdir -p "$seeds" && "$folder/fuzz/fuzz_$2" --seed-corpus "$seeds" >/dev/null || exit 1
    began=$(date +%s)
    FUZZ_PLANTED=$1 "$folder/fuzz/fuzz_$2" -max_total_time="$seconds" -timeout=20 \
        -rss_limit_mb=1024 -print_final_stats=1 -max_len=65536 -artifact_prefix="$folder/" \
        "$seeds" >"$log" 2>&1
    status=$?
    took=$(($(date +%s) - began))
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    if [ "$status" -ne 0 ]; then
        passed=$((passed + 1))
        result=$(grep -a -E '^SUMMARY|not true' "$log" | head -n 1)
    else
        failed=$((failed + 1))
        result="NOT FOUND"
    fi
    printf '%-10s %-34s %5s executions %4d s: %.90s\n' "$2" "$3" "${runs:-no}" "$took" "$result"
}

seek 1 segment "a neighbour beyond the rows"
seek 2 segment "a section beyond the data"
seek 3 log "a record longer than the file"
seek 4 manifest "counts beyond the bytes"
seek 5 segment "an entry beyond the graph"
seek 6 segment "sections too short for the rows"
seek 7 log "records beyond the payload"
seek 8 segment "an index of ids beyond the rows"
seek 9 segment "an upper block beyond the blocks"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
