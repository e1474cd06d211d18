#!/bin/sh
# Do the instruments find bugs? Plants one at a time into a copy of omendb.c, builds the instrument
# that is named beside it, and expects it to fail. Prints a table: the bug, the instrument, after how
# many images, runs or operations it was found. Exits 1 if a bug was not found, or could not be
# planted because the text that it changes is not there any more; the last line is
# "N passed, M failed".
#
#   tests/planted.sh [PATTERN]    all bugs, or those whose names match (grep -E)
#
# Variables: CC, PLANTED_EVERY (1: with 5 every fifth bug only), PLANTED_DIRECTORY (build/planted).
cd "$(dirname "$0")/.." || exit 1
work=${PLANTED_DIRECTORY:-${BUILD:-build}/planted}
every=${PLANTED_EVERY:-1}
pattern=${1:-.}
CC=${CC:-cc}
passed=0
failed=0
number=0
mkdir -p "$work" || exit 1

# instrument NAME ARGUMENT...: its source, and what it is run with: what it takes itself, or a number
# that is enough here.
instrument() {
    name=$1
    shift
    arguments=$*
    case $name in
    crash) source=tests/crash_enumerate.c arguments='--images 20000' ;;
    io) source=tests/fault_io.c ;;
    memory) source=tests/fault_memory.c ;;
    posix) source=tests/fault_posix.c ;;
    model) source=tests/test_model.c arguments='--operations 200000' ;;
    kill) source=tests/test_kill.c arguments=200 ;;
    damage) source=tests/test_damage.c ;;
    soak) source=tests/soak_mixed.c ;;
    backup) source=tests/test_backup.c ;;
    processes) source=tests/test_processes.c ;;
    keys) source=tests/test_keys_and_metadata.c ;;
    hostile) source=tests/test_hostile_keys.c ;;
    lists) source=tests/test_column_lists.c ;;
    indexes) source=tests/test_conditions_by_index.c ;;
    updates) source=tests/test_updates.c ;;
    signed) source=tests/test_signed_damage.c ;;
    lies) source=tests/test_lying_logs.c ;;
    threads) source=tests/test_concurrency.c ;;
    saved) source=tests/test_salvage_updates.c ;;
    limits) source=tests/test_limits.c ;;
    groups) source=tests/test_groups.c ;;
    pages) source=tests/test_pages.c ;;
    facets) source=tests/test_facets.c ;;
    examples) source=tests/test_by_example.c ;;
    many) source=tests/test_many_queries.c ;;
    batches) source=tests/test_batch_filters.c ;;
    fields) source=tests/test_declared_fields.c ;;
    esac
}

# The planted library, and the instrument with it; objects of instruments are kept. A white-box one
# includes the planted file.
build() {
    if grep -q '^#include "omendb.c"' "$source"; then
        $CC -std=c11 -O0 -g -I"$work" -I. -Itests "$source" -o "$work/program" -lm -lpthread
        return
    fi
    object=$work/$(basename "$source" .c).o
    if [ ! -e "$object" ] || [ -n "$(find tests "$source" -newer "$object" -name '*.[ch]')" ]; then
        $CC -std=c11 -O1 -g -I. -c "$source" -o "$object" || return 1
    fi
    inside=
    grep -q '^#include "internals.h"' "$source" && inside=-DOMENDB_INTERNAL=
    # shellcheck disable=SC2086
    $CC -std=c11 -O0 -g $inside -I. -c "$work/omendb.c" -o "$work/omendb.o" &&
        $CC "$object" "$work/omendb.o" -o "$work/program" -lm -lpthread
}

tell() {
    printf '%-62s %-7s %s\n' "$1" "$2" "$3"
}

# plant NAME INSTRUMENT FUNCTIONS SED: the instrument with its arguments, if any (of memory and io one
# word of the scenarios' names, of a test program a part of its tests'); the sed commands work on the
# bodies of these functions only.
plant() {
    printf '%s\n' "$1" | grep -qE -e "$pattern" || return
    number=$((number + 1))
    [ $(((number - 1) % every)) -eq 0 ] || return
    cp omendb.c "$work/omendb.c"
    for function in $3; do
        sed -E "/^[a-zA-Z].*[ *]$function\\(/,/^}/ { $4
            }" "$work/omendb.c" >"$work/omendb.new.c"
        if cmp -s "$work/omendb.new.c" "$work/omendb.c"; then
            failed=$((failed + 1))
            tell "$1" "$2" "NOT PLANTED: nothing to change in $function"
            return
        fi
        mv "$work/omendb.new.c" "$work/omendb.c"
    done
    # shellcheck disable=SC2086
    instrument $2
    log=$work/$(printf '%s' "$1" | tr -c 'a-zA-Z0-9' '_').log
    if ! build >"$log" 2>&1; then
        failed=$((failed + 1))
        tell "$1" "$2" "DOES NOT COMPILE: see $log"
        return
    fi
    # shellcheck disable=SC2086
    if OMENDB_SOAK_SECONDS=30 timeout 300 "$work/program" $arguments >"$log" 2>&1; then
        failed=$((failed + 1))
        tell "$1" "$2" "NOT FOUND: see $log"
    else
        passed=$((passed + 1))
        looked=$(awk '/^FAILED [a-z]/ { exit }
            { for (i = 2; i <= NF; i++)
                  if ($i ~ /^(images|runs|operations|cycles|tried)/) last = $(i - 1) " " $i }
            END { sub(/:.*/, "", last); print last }' "$log")
        tell "$1" "$2" "found after ${looked:-the first look}"
    fi
}

# ---------------------------------------------------------------------------------------------------
# what is planted

plant 'commits are acknowledged without a sync of the log' crash commit_sync_led \
    's/int code = wal_sync\(db->wal\);/int code = OMENDB_OK;/'
plant 'a failing allocation in a transaction frees twice' 'memory commit' txn_copy \
    's/(txn_drop_copies\(txn, change, copies, i\);)/\1 \1/'
plant 'a conflict is missed by one commit' model commit_check_id \
    's/changed > plan->snapshot\)/changed > plan->snapshot + 1)/'
plant 'a full disk is ignored' 'io batch' storage_write \
    's/if \(code != OMENDB_OK\)/if (code != OMENDB_OK \&\& code != OMENDB_FULL)/'
plant 'the checksum of a block is not compared' damage blocks_compare \
    's/crc == source->checksums\[block\]/1/'
plant 'the name of a new log is not synced' crash wal_create \
    's/code = storage_sync_directory\(storage\);/code = OMENDB_OK;/'
plant 'the rename of CURRENT is not synced' crash manifest_publish \
    's/code = storage_sync_directory\(storage\);/code = OMENDB_OK;/'
plant 'CURRENT is renamed before it and its manifest are synced' crash manifest_write_file \
    's/code = storage_sync\(storage, &file\);/code = OMENDB_OK;/'
plant 'a commit returns before the sync' crash commit_run \
    's/int waited = .*;/int waited = OMENDB_OK;/'
plant 'a manifest is published before its segments are synced' crash segment_writer_finish \
    's/code = storage_sync\(writer->storage, &writer->file\);/code = OMENDB_OK;/'
plant 'the old log goes before a manifest replaces it' crash checkpoint_rotate_log \
    's/wal_close\(last\);/wal_close(last); storage_unlink(\&db->storage, last->file.name);/'
plant 'a backup is not synced' crash backup_copy_bytes \
    's/code = storage_sync\(to, &target\);/code = OMENDB_OK;/'
plant 'only the first change of a commit is replayed' kill commit_replay \
    's/while \(at < size && code == OMENDB_OK\) \{/if (code == OMENDB_OK) {/'
plant 'recovery stops at the end of the first log' kill recover_logs \
    's/if \(successor == 0\)/if (successor != UINT64_MAX)/'
plant 'a record of the log with a wrong checksum is believed' damage wal_check \
    's/crc != format_get32\(header \+ FORMAT_RECORD_CRC\)/crc == 0/'
plant 'deletions at the commit of a checkpoint are not in its overlay' crash \
    checkpoint_write_tombstone 's/end > overlay->commit/end >= overlay->commit/'
plant 'a merge loses the deletions that a snapshot made it carry' model compact_carry_tombstone \
    's/tombstones_set\(.*\);/(void)end;/'
plant 'a merge drops rows that a snapshot sees' model txn_oldest \
    's/db->transactions != NULL \? db->transactions->snapshot : /0 ? 0 : /'
plant 'a log that cannot be created leaks its buffer' 'io delete' wal_create \
    '/code = storage_open/,/return code/ s/wal_close\(wal\);//'
plant 'a failed sync of the log is forgotten' 'io add' 'commit_sync_led wal_sync' \
    's/return commit_poison\(db, code\);/return code;/
     s/atomic_store_explicit\(&wal->poisoned, 1, memory_order_release\);/(void)0;/'
plant 'a commit is visible before it is durable' 'io visible' commit_run \
    's/if \(\*applied && !commit_is_awaited\(db, two_phases\)\)/if (*applied)/'
plant 'a commit number is given twice' model commit_locked \
    's/db->appended_commit \+ 1;/db->appended_commit + (db->appended_commit % 50 != 49);/'
plant 'an interrupted write is an error' posix vfs_posix_write \
    's/if \(done < 0 && errno == EINTR\)/if (0)/'
plant 'a short write counts as whole' posix vfs_posix_write \
    's/size -= \(size_t\)done;/size -= step;/'
plant 'copies of prepared transactions are not synced' crash checkpoint_freeze \
    's/^( +)code = commit_sync_led\(db\);.*/\1code = OMENDB_OK;/'
plant 'a new log begins without copies of what is prepared' crash prepared_copy_to_log \
    's/i = \(size_t\)copied; i < set->count/i = (size_t)copied; i < 0 * set->count/'
plant 'locks of prepared transactions are not taken again at opening' 'memory waits' \
    prepared_replay_new \
    's/return prepared_hold\(db, made\)/return (prepared_insert(\&db->prepared, made), records)/'
plant 'an outcome is copied to a new log as if it waited' model prepared_copy_to_log \
    's/prepared->state == OMENDB_PREPARED_WAITING \? CHANGE_PREPARE : CHANGE_REMEMBER/CHANGE_PREPARE/'
plant 'a record that is prepared can be written' model commit_check_id \
    's/return prepared_refuse_locked\(.*/(void)0;/'
plant 'the log in a backup names its predecessor' 'backup a_log_that' backup_copy_bytes \
    's/wal_header_detach\(backup->buffer\);/(void)0;/'
plant 'a reader refuses a collection that the log made once more' 'processes meets_again' \
    commit_replay_change 's/ && !db->read_only\)/)/'
plant 'a reader that checkpoints overtake reads on' 'processes overtake' recover_refresh \
    's/asked != OMENDB_OK \|\| !overtaken/1/'

plant 'a key that another record has is not refused' 'keys a_taken_key' commit_check_key \
    's/return commit_refuse_taken_key\(.*/return OMENDB_OK;/'
plant 'a key that others gave since a snapshot is not looked for' 'keys' commit_check_key \
    's/changed > plan->snapshot\)/0)/'
plant 'what is prepared does not lock its keys' 'memory prepared' prepared_lock_keys \
    's/^( +)prepared_lock\(set.*/\1(void)holder;/'
plant 'keys of what was prepared stay locked' crash prepared_lock_keys \
    's/^( +)prepared_unlock\(set.*/\1(void)holder;/'
plant 'documents of a merge are those of other rows' crash compact_read_document \
    's/merge->overlays\[input\], from->row\+\+,/merge->overlays[input], from->row++ ^ (segment->info.rows > 1 \&\& from->row == 1),/'
plant 'a merge leaves the documents of its base out' crash compact_read_document \
    's/from->turn = from->row = 0;/from->turn = 1, from->row = 0;/'
plant 'a transaction keeps no document' crash txn_copy_one \
    's/if \(copy->vector != NULL \&\& document != NULL\)/document = NULL; if (document != NULL)/'
plant 'a log is replayed without keys and metadata' crash commit_decode_body \
    's/if \(!logged->documents\)/if (1)/'
plant 'a put takes the metadata of the record that it replaces' model txn_gather_documents \
    's/sizes\[i\] = document_size\(writes\[i\]->document\);/sizes[i] = document_size(writes[i]->document); if (i > 0 \&\& sizes[i] == sizes[0] \&\& sizes[0] != 0) { memcpy(at, writes[0]->document, sizes[i]); at += sizes[i]; continue; }/'
plant 'a document of a segment is not checked' 'signed damaged_doc' segment_document \
    's/if \(wrong != NULL\)/if (0)/'
plant 'a document of an overlay is not checked' 'signed damaged_updates' overlay_read_base \
    's/if \(wrong != NULL\)/if (0)/'
plant 'the rows of an overlay are not bounded' 'signed damaged_updates' overlay_read_rows \
    's/row >= rows \|\| //'
plant 'a document of the log is not checked' 'lies a_lie' commit_check_documents \
    's/document_check\(document, size\) != NULL/0/'
plant 'the row of a key is not bounded' 'signed segments' documents_row_at \
    's/found >= segment->info.rows\)/0)/'
plant 'salvage does not tell that documents are damaged' 'signed damaged_doc' salvage_report_documents \
    's/if \(counts\[i\] != 0\)/if (0)/'
plant 'salvage leaves keys and metadata out' crash salvage_document \
    's/\*document = salvage->document;/(void)document;/'
plant 'salvage does not tell which records may have been updated' saved salvage_updated_place \
    's/!updated->sure;/0;/'
plant 'a waiting update of a record without its key fails salvage' 'saved waiting' \
    salvage_prepare_update 's/vector == NULL \?/1 ?/'
plant 'an update forgets what another update wrote' 'threads updates' api_edit_once \
    's/code = edit->make\(collection, txn, edit\);/code = edit->make(collection, NULL, edit);/'
plant 'keys are hashed without the seed' 'hostile texts' hash_begin 's/seed->half\[[01]\] \^ //'
plant 'a key is looked for by the hash that another segment has' 'hostile opening' documents_hash \
    's/!probe->hashed \|\| .*\) \{/!probe->hashed) {/'
plant 'the names of fields are told apart without the seed' 'hostile names' columns_field \
    's/hash = .*;/hash = document_hash_name(field->name, field->name_size);/'
plant 'a run of rows is listed without its last' 'lists ranges' column_list_run \
    's/rows - 1;/rows - 1; last -= last > first;/'
plant 'packed ranks are not taken off the places of others' 'lists ranges' column_place \
    's/rows - before;/rows;/'
plant 'AND of lists takes what any child has' 'lists and_and_or' column_groups_narrow \
    's/== FILTER_AND/== FILTER_OR/'
plant 'lists are believed where a row may match without a value' 'lists what_lists' \
    column_filter_is_exact 's/if \(!plan->tests\[node->leaf\].listed\)/if (0)/'
plant 'of a key in memory only the newest row is listed' 'indexes snapshots' \
    column_filter_find_memtable_key 's/row = memtable_previous_key\(.*\)\)/row = GRAPH_NO_ROW)/'
plant 'of a key in a segment only one row is listed' 'indexes snapshots' column_filter_find_key \
    's/while \(code == .*/while (0);/'
plant 'of an id in memory only the newest row is listed' 'indexes snapshots' \
    column_filter_find_ids 's/row = memtable_previous\(.*\)\)/row = GRAPH_NO_ROW)/'
plant 'places of ids are taken for rows' 'indexes all_ways' column_filter_ids \
    's/COLUMN_TEST_PLACES :/COLUMN_TEST_ROWS :/'
plant 'a cursor goes over all ids for few matches' 'indexes counts_cursors' rows_add_few \
    's/ROWS_FEW\(stored\)/0/'
plant 'a cursor believes columns of rows that were updated' 'indexes all_ways' \
    rows_passes_segment 's/!overlay_may_have\(.*\)\)/1)/'

plant 'what is replaced stays counted' model quota_account_change \
    's/change->ended_documents\);/0);/'
plant 'a manifest forgets what documents take' crash checkpoint_list_collections \
    's/entry->document_bytes = .*/entry->document_bytes = 0;/'
plant 'limits are not replayed' crash commit_apply_setting \
    's/quota_set\(.*/(void)0;/'
plant 'a manifest forgets limits' crash checkpoint_list_collections \
    's/quota_get\(.*/(void)0;/'
plant 'what is prepared reserves nothing' 'limits prepared' quota_reserved \
    's/i < set->count/i < 0 * set->count/'
plant 'a transaction goes over a limit' 'limits transaction' quota_check_changes \
    's/code = quota_check_run\(.*/code = count > 1 ? OMENDB_OK : quota_check_run(collection, \&growth, writes);/'
plant 'a batch takes the answers of the one before' 'batches committed' matches_continue \
    's/matches->batch == batch/matches->batch != 0/'
plant 'a batch asks for each query anew' 'batches asks' matches_belong \
    's/matches->batch = batch/matches->batch = 0/'
plant 'rows that were put together keep their places as names' 'batches model' graph_scan_gathered \
    's/hits.i..row = gathered.*/(void)0;/'
plant 'a document that cannot be read counts as none' 'limits read_that' location_document_bytes \
    's/return code == OMENDB_CORRUPT \? OMENDB_OK : code;/return OMENDB_OK;/'
plant 'a group takes one hit too many' groups groups_take \
    's/taken >= most\)/taken > most)/'
plant 'later rounds leave out values that have room' groups groups_leave_out_full \
    's/taken >= groups->asked->group_size\)/taken > 0)/'
plant 'records without the field are in no group' groups groups_take \
    's/groups->nulls \+= groups->is_null\[hit\];/(void)0;/'
plant 'a page gives a hit once more' pages pages_keep_new \
    's/if \(pages_has_seen\(.*\)\)/if (0 * known)/'
plant 'pages read the newest state' pages pages_search \
    's/request\.k = reach;/request.k = reach; request.commit = UINT64_MAX - 1;/'
plant 'metadata may have fields named _id and _key' fields records_check_names \
    's/if \(document_find\(document,/if (0 \&\& document_find(document,/'
plant 'pages do not hold their filter' pages pages_copy_request \
    's/filter_hold\(pages->predicate\.filter\);//'
plant 'pages keep their version for ever' 'memory pages' pages_free \
    's/version_release\(pages->version\);/(void)0;/'
plant 'a text that an array has twice counts twice' facets facets_add_up \
    's/entries\[i\]\.record == 0 \|\| .*\) \{/1) {/'
plant 'facets count deleted records' facets search_hand_out \
    's/!search_visible\(source, row\) \|\|/0 ||/'
plant 'examples are among the hits' examples search_is_excluded \
    's/return low < .*;/return 0;/'
plant 'hits of many queries lie by the k of each' many api_search_one_of \
    's/many->ids \+ index \* many->places/many->ids + index * asked->request.k/'
plant 'a manifest forgets what is declared' crash checkpoint_list_collections \
    's/code = checkpoint_enter_declaration\(.*/(void)checkpoint_enter_declaration;/'
plant 'salvage forgets what is declared' crash salvage_set_all \
    's/code = salvage_declare\(.*/(void)salvage_declare;/'
plant 'what is declared meanwhile does not bind a transaction' 'fields transaction' \
    fields_check_change 's/declared == change->kept/1/'
plant 'a field that is required may be null' 'fields required' declaration_compare_field \
    's/field->required \? DECLARATION_MISSING : //'
plant 'an update forgets what another update wrote' 'threads updates' api_put_document \
    's/txn->snapshot/UINT64_MAX/'

plant 'an update is not in the log' crash commit_pieces \
    's/if \(change->document_sizes == NULL\)/if (change->document_sizes == NULL || change->kind == CHANGE_UPDATE)/'
plant 'a checkpoint leaves updates out' crash checkpoint_is_dirty \
    's/overlay_newest\(overlay\)/(uint64_t)0/'
plant 'a checkpoint leaves the last updated row out' crash checkpoint_each_update \
    's/code = each\(update, row, &version\)/code = overlay_next(marked->from, row + 1) == UINT32_MAX ? OMENDB_OK : each(update, row, \&version)/'
plant 'what is updated during a merge is lost with it' updates compact_carry_updates \
    's/from == NULL/from != NULL/'
plant 'a merge writes newer documents than a snapshot sees' updates compact_read_document \
    's/merge->drop_limit/UINT64_MAX/'
plant 'a snapshot loses its documents at a checkpoint' updates checkpoint_older \
    's/txn_reads_between\(checkpoint->db, from->commit, end\)/(end == 0)/'
plant 'documents stay after the snapshots that saw them' 'updates only_snapshots' space_look \
    's/pinned \|= space_drop_overlays\(.*/pinned = 1;/'
plant 'documents go while a snapshot sees them' 'updates snapshots' overlay_without_unread \
    's/if \(txn_reads_between\(.*\)\) \{/if (0) {/
     s/all = txn_reads_between\(.*/all = 0;/'
plant 'columns answer for rows that were updated' updates search_filter_matches \
    's/overlay_may_have\(source->overlay, row\)/0/'
plant 'rows that were updated are not listed' updates search_list \
    's/overlay_count\(source->overlay\) != 0/0/'
plant 'an update is not found to be a conflict' updates commit_note_update \
    's/newest.commit > \*changed/0/'

plant 'directories are never closed' soak vfs_posix_close_directory \
    's/close\(vfs_posix_descriptor\(directory\)\);/(void)directory;/'
plant 'the manifest in use is not freed at close' soak database_free_files \
    's/manifest_destroy\(&db->memory, &db->published\);/(void)0;/'

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
