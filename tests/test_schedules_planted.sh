#!/bin/sh
# Whether test_schedules finds bugs: mistakes that are easily made are planted in a copy of omendb.c,
# and for each one a scenario must fail within two preemptions. Every plant is text put in the place
# of other text in one function; a plant that no longer fits fails.
#
# CC compiles (cc), CFLAGS are its flags (-O1 -g). The last line is "N passed, M failed".
passed=0
failed=0
made=
if [ -z "$OMENDB_TEST_DIRECTORY" ]; then
    made=$(mktemp -d) || exit 1
    OMENDB_TEST_DIRECTORY=$made
fi
work=$(cd "$OMENDB_TEST_DIRECTORY" && pwd) || exit 1
cp omendb.c "$work/planted.c"

# plant FUNCTION FROM TO: the one line of the function that has FROM gets TO in its place.
plant() {
    range="/^[a-zA-Z].*[ *]$1(.*[^;]\$/,/^}/"
    lines=$(sed -n "$range { /$2/ p }" "$work/planted.c" | grep -c '')
    sed "$range s/$2/$3/" "$work/planted.c" >"$work/next.c"
    mv "$work/next.c" "$work/planted.c"
    [ "$lines" = 1 ] && return
    failed=$((failed + 1))
    echo "FAILED to plant in $1: $lines lines have \"$2\""
}

# found NUMBER SCENARIO: fails with the bug, and says by which schedule.
found() {
    "$work/planted" "$2" --planted "$1" >"$work/log" 2>&1
    if [ $? != 0 ] && grep -q 'schedule [0-9]' "$work/log"; then
        passed=$((passed + 1))
        echo "ok bug $1, by $2: $(sed -n 's/.*schedule \([0-9:,]*\).*/\1/p' "$work/log" | head -n 1)"
    else
        failed=$((failed + 1))
        echo "FAILED bug $1: no schedule of $2 shows it"
    fi
}


B='schedule_planted'

# 1: a commit is visible before it is applied
plant commit_locked 'commit_apply(' "if ($B == 1) commit_publish(db, number);\n    &"

# 2: what was deleted during a merge is looked up before commit_mutex is taken
plant compact_install 'platform_mutex_lock(&db->commit_mutex)' "if ($B != 2) &"
plant compact_install 'code = compact_swap(merge, output, overlay);' \
    "{ if ($B == 2) platform_mutex_lock(\&db->commit_mutex); & }"

# 3: a version is released while a reader is about to reference it
plant version_install 'version_wait_for_readers' "if ($B != 3) &"

# 4: a snapshot has its number before it is in the list
plant txn_begin 'made->snapshot = atomic_load' "if ($B != 4) &"
plant txn_begin 'platform_mutex_lock' "made->snapshot = atomic_load(\&db->visible_commit);\n    &"

# 5: commit_mutex is let go between validating and appending
plant commit_locked 'code = commit_holds(order)' "if ($B == 5) \
{ platform_mutex_unlock(\&db->commit_mutex); platform_mutex_lock(\&db->commit_mutex); }\n    &"

# 6: a reader does not look whether its version was current when it took its number
plant version_acquire_newest 'if (atomic_load(&collection->version) == version)' \
    "if ($B == 6 || atomic_load(\&collection->version) == version)"

# 7: a commit is known as durable before it is visible
plant commit_sync_led 'commit_publish(db, commit)' "if ($B != 7) &"
plant commit_sync_led '    return OMENDB_OK;' "    if ($B == 7) commit_publish(db, commit);\n&"

# 8: the leader does not wake those that wait for its sync
plant commit_wait 'platform_condition_broadcast' "if ($B != 8) &"

# 9: what was appended during the sync counts as synced
plant commit_sync_led 'wal_set_durable' "if ($B == 9) commit = db->appended_commit;\n        &"

# 10: a checkpoint replaces the log while it is synced
plant checkpoint_freeze 'commit_lead(db)' "if ($B != 10) &"

# 11: two threads may both find that they are the last
plant omendb_release 'atomic_fetch_or(&db->children, DATABASE_RELEASED)' \
    "($B == 11 ? atomic_load(\&db->children) : &)"
plant database_child_done 'if (atomic_fetch_sub(&db->children, 1) == (DATABASE_RELEASED | 1))' \
    "if ($B == 11 ? atomic_fetch_sub(\&db->children, 1) == 1 \&\& atomic_load(\&db->released) : \
atomic_fetch_sub(\&db->children, 1) == (DATABASE_RELEASED | 1))"

# 12: a refusal tells of a commit that is not visible
plant commit_run 'commit_tells_state(code)' "($B == 12 ? code == OMENDB_OK : &)"

# 13: a look says what waits for an end after it has asked who is open
plant space_look 'atomic_store(&db->space_pinned, visible)' "if ($B != 13) &"
plant space_look 'int large = ' "if ($B == 13 \&\& pinned) atomic_store(\&db->space_pinned, visible);\n    &"

if [ "$failed" != 0 ] || ! ${CC:-cc} -std=c11 ${CFLAGS:--O1 -g} -I. -Itests \
    -DSCHEDULE_LIBRARY="\"$work/planted.c\"" tests/test_schedules.c -o "$work/planted" -lm \
    -lpthread; then
    echo "0 passed, $((failed + 1)) failed"
    exit 1
fi

found 1 two_committers_and_a_reader
found 2 deleter_and_merge
found 3 reader_and_deleting_merge
found 4 snapshot_and_sealing
found 5 two_adders_of_one_id
found 6 replacer_checkpoint_and_reader
found 7 two_committers
found 8 two_committers
found 9 two_committers
found 10 committer_and_checkpoint
found 11 committer_and_release
found 12 two_adders_of_one_id
found 13 held_documents_and_look

[ -n "$made" ] && rm -rf "$made"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
