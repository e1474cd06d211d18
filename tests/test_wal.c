/* test_wal.c: the log: what is appended comes back, what a crash leaves is a prefix, damage below
 * what was durable is told. */
#include "internals.h"

#include <errno.h>

#include "test.h"
#include "storage_fixture.h"

#define WAL_NAME     "wal-7"
#define MOST_RECORDS 64

/* Payload of record `sequence`: so many bytes, of which each follows from its place. */
static uint8_t payload_byte(uint64_t sequence, size_t at)
{
    return (uint8_t)(sequence * 31 + at * 7 + at / 251);
}

static uint8_t *payload_make(uint64_t sequence, size_t size)
{
    uint8_t *payload = malloc(size + 1);
    for (size_t i = 0; i < size; i++)
        payload[i] = payload_byte(sequence, i);
    return payload;
}

/* Delivered records; `wrong` when one is not what was appended. */
struct delivered {
    uint64_t first, count;
    uint64_t ends[MOST_RECORDS];
    int wrong;
    uint64_t refuse_at; /* this sequence is answered with OMENDB_BUSY */
};

/* The sizes of the payloads that append_small gives. */
static size_t small_size(uint64_t sequence)
{
    return (size_t)(sequence * 5 % 23);
}

static int expect_small(void *context, const struct wal_record *record)
{
    struct delivered *delivered = context;
    if (delivered->refuse_at != 0 && record->sequence == delivered->refuse_at)
        return OMENDB_BUSY;
    delivered->wrong |= record->sequence != delivered->first + delivered->count;
    delivered->wrong |= record->size != small_size(record->sequence) || record->type != WAL_COMMIT;
    delivered->wrong |= (uintptr_t)record->payload % 8 != 0;
    for (size_t i = 0; i < record->size && !delivered->wrong; i++)
        delivered->wrong |= record->payload[i] != payload_byte(record->sequence, i);
    delivered->ends[delivered->count++] = record->offset + 40 + (record->size + 7) / 8 * 8;
    return OMENDB_OK;
}

static int append_small(struct wal *wal, uint64_t sequence)
{
    uint8_t *payload = payload_make(sequence, small_size(sequence));
    const struct wal_piece pieces[2] = {
        {payload, small_size(sequence) / 2},
        {payload + small_size(sequence) / 2, small_size(sequence) - small_size(sequence) / 2}};
    const int code = wal_append(wal, sequence, WAL_COMMIT, pieces, 2);
    free(payload);
    return code;
}

static int read_from(struct wal_replay *replay, struct delivered *delivered, uint64_t first)
{
    memset(delivered, 0, sizeof *delivered);
    delivered->first = first;
    return wal_read(&fixture.storage, replay, expect_small, delivered);
}

static int read_small(struct wal_replay *replay, struct delivered *delivered)
{
    const struct wal_replay fresh = {.number = 7, .final_length = WAL_LENGTH_UNKNOWN};
    *replay = fresh;
    return read_from(replay, delivered, 100);
}

/* Records 100 to 100 + count - 1; durable: each is synced before the next is appended. ends: count
 * + 1 offsets. */
static void make_log(int count, int durable, uint64_t *ends)
{
    struct wal wal;
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 6, 4096, 2048, durable, &wal), OMENDB_OK);
    ends[0] = wal.length;
    for (int i = 0; i < count; i++) {
        CHECK_EQ_INT(append_small(&wal, 100 + (uint64_t)i), OMENDB_OK);
        if (durable && i + 1 < count) {
            CHECK_EQ_INT(wal_sync(&wal), OMENDB_OK);
            wal_set_durable(&wal, wal.length);
        }
        ends[i + 1] = wal.length;
    }
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
}

/* ---------------------------------------------------------------------------------------------------
 * appending and reading */

static const size_t large_sizes[] = {
    0,     1,      39,           40,           65495,   65496,
    65497, 131072, 1048575 - 40, 1048576 - 40, 1048577, 3 * 1048576 + 5,
    12,    8};
#define LARGE_COUNT (sizeof large_sizes / sizeof large_sizes[0])

static int expect_large(void *context, const struct wal_record *record)
{
    struct delivered *delivered = context;
    const size_t index = (size_t)(record->sequence - 1);
    delivered->wrong |= index >= LARGE_COUNT || record->size != large_sizes[index];
    delivered->wrong |= (uintptr_t)record->payload % 8 != 0;
    for (size_t i = 0; !delivered->wrong && i < record->size; i++)
        delivered->wrong |= record->payload[i] != payload_byte(record->sequence, i);
    delivered->count++;
    return OMENDB_OK;
}

TEST(wal_gives_back_payloads_of_every_size)
{
    struct wal wal;
    struct delivered delivered = {0};
    struct wal_replay replay = {
        .number = 7, .final_length = WAL_LENGTH_UNKNOWN, .first_sequence = 1};
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 1, 6, 4096, 1 << 16, 1, &wal), OMENDB_OK);
    for (size_t i = 0; i < LARGE_COUNT; i++) {
        uint8_t *payload = payload_make(i + 1, large_sizes[i]);
        const size_t cut = large_sizes[i] / 3;
        const struct wal_piece pieces[3] = {
            {payload, cut}, {NULL, 0}, {payload + cut, large_sizes[i] - cut}};
        const int code = wal_append(&wal, i + 1, WAL_COMMIT, pieces, 3);
        free(payload);
        CHECK_EQ_INT(code, OMENDB_OK);
        CHECK(wal.allocated >= wal.length && wal.length % 8 == 0);
    }
    CHECK_EQ_INT(wal_read(&fixture.storage, &replay, expect_large, &delivered), OMENDB_OK);
    CHECK(!delivered.wrong);
    CHECK_EQ_INT(delivered.count, LARGE_COUNT);
    CHECK_EQ_INT(replay.end, wal.length);
    CHECK_EQ_INT(replay.next_sequence, LARGE_COUNT + 1);
    CHECK_EQ_INT(replay.predecessor, 6);
    CHECK_EQ_INT(replay.predecessor_length, 4096);
    CHECK(replay.log_id == wal.log_id && !replay.torn);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_end();
}

/* The first one brings the zeros for those that follow. */
TEST(wal_writes_a_small_record_at_once)
{
    struct wal wal;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 4096, 1, &wal), OMENDB_OK);
    CHECK_EQ_INT(append_small(&wal, 100), OMENDB_OK);
    CHECK_EQ_INT(wal.written, 4096);
    fixture_fail(FIXTURE_WRITE, 1000, 0, OMENDB_IOERR);
    for (uint64_t sequence = 101; sequence < 140; sequence++)
        CHECK_EQ_INT(append_small(&wal, sequence), OMENDB_OK);
    CHECK_EQ_INT(fixture.calls, 39);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_end();
}

TEST(wal_writes_nothing_ahead_of_large_records_or_where_nobody_waits_for_syncs)
{
    struct wal wal;
    uint8_t *payload = payload_make(100, 40000);
    const struct wal_piece piece = {payload, 40000};
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 1 << 20, 1, &wal), OMENDB_OK);
    CHECK_EQ_INT(wal_append(&wal, 100, WAL_COMMIT, &piece, 1), OMENDB_OK);
    CHECK_EQ_INT(wal.written, wal.length);
    fixture.storage.sync = OMENDB_SYNC_NORMAL;
    CHECK_EQ_INT(append_small(&wal, 101), OMENDB_OK);
    CHECK_EQ_INT(wal.written, wal.length);
    fixture.storage.sync = OMENDB_SYNC_FULL;
    CHECK_EQ_INT(append_small(&wal, 102), OMENDB_OK);
    CHECK_EQ_INT(wal.written, 1 << 20);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_end();
    free(payload);
}

TEST(wal_goes_on_where_zeros_cannot_be_written_ahead)
{
    struct wal wal;
    struct wal_replay replay;
    struct delivered delivered;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 1 << 20, 1, &wal), OMENDB_OK);
    fixture_fail(FIXTURE_WRITE, 3, 0, OMENDB_FULL);
    for (uint64_t sequence = 100; sequence < 104; sequence++)
        CHECK_EQ_INT(append_small(&wal, sequence), OMENDB_OK);
    CHECK_EQ_INT(fixture.calls, 8);
    CHECK_EQ_INT(read_small(&replay, &delivered), OMENDB_OK);
    CHECK_EQ_INT(delivered.count, 4);
    CHECK(!delivered.wrong && !replay.torn && replay.end == wal.length);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_end();
}

TEST(wal_ends_where_delivery_is_refused)
{
    struct wal_replay replay = {.number = 7, .final_length = WAL_LENGTH_UNKNOWN};
    struct delivered delivered = {.first = 100, .refuse_at = 103};
    uint64_t ends[7];
    fixture_begin(OMENDB_IO_MAP);
    make_log(6, 0, ends);
    CHECK_EQ_INT(wal_read(&fixture.storage, &replay, expect_small, &delivered), OMENDB_BUSY);
    CHECK_EQ_INT(delivered.count, 3);
    CHECK_EQ_INT(replay.end, ends[3]);
    fixture_end();
}

TEST(wal_expects_the_sequence_that_must_follow)
{
    struct wal_replay replay = {
        .number = 7, .final_length = WAL_LENGTH_UNKNOWN, .first_sequence = 99};
    struct delivered delivered;
    uint64_t ends[3];
    fixture_begin(OMENDB_IO_MAP);
    make_log(2, 0, ends);
    CHECK_EQ_INT(read_from(&replay, &delivered, 100), OMENDB_CORRUPT);
    replay.first_sequence = 100;
    CHECK_EQ_INT(read_from(&replay, &delivered, 100), OMENDB_OK);
    CHECK_EQ_INT(delivered.count, 2);
    replay.number = 8;
    CHECK_EQ_INT(read_from(&replay, &delivered, 100), OMENDB_NOTFOUND);
    fixture_end();
}

/* ---------------------------------------------------------------------------------------------------
 * crashes and damage */

TEST(wal_cut_at_any_length_gives_a_prefix)
{
    struct wal_replay replay;
    struct delivered delivered;
    uint64_t ends[7];
    uint8_t bytes[4096];
    fixture_begin(OMENDB_IO_MAP);
    make_log(6, 0, ends);
    const uint64_t size = fixture_file_size(WAL_NAME);
    CHECK(size <= sizeof bytes);
    fixture_file_read(WAL_NAME, 0, bytes, (size_t)size);
    for (uint64_t length = 0; length <= size; length++) {
        uint64_t whole = 0;
        fixture_file_truncate(WAL_NAME, length);
        const int code = read_small(&replay, &delivered);
        while (whole < 6 && ends[whole + 1] <= length)
            whole++;
        CHECK_EQ_INT(code, length < 64 ? OMENDB_NOTFOUND : OMENDB_OK);
        CHECK_EQ_INT(delivered.count, whole);
        CHECK(!delivered.wrong);
        CHECK_EQ_INT(replay.torn, length < 64 ? length > 0 : whole < 6 && length > ends[whole]);
        fixture_file_make(WAL_NAME, bytes, (size_t)size);
    }
    fixture_end();
}

/* What a flip at `offset` may lead to. synced: every record but the last was known to be durable by
 * the next. */
static void check_flip(uint64_t offset, int synced, const uint64_t *ends, int code,
                       const struct wal_replay *replay, const struct delivered *delivered)
{
    CHECK(!delivered->wrong);
    if (offset >= ends[6]) {
        CHECK_EQ_INT(code, OMENDB_OK);
        CHECK(delivered->count == 6 && replay->torn);
    } else if (offset >= ends[5]) {
        CHECK_EQ_INT(code, OMENDB_OK);
        CHECK(delivered->count == 5 && replay->torn);
    } else if (synced) {
        CHECK(code == OMENDB_CORRUPT);
        CHECK(offset < ends[delivered->count + 1] || offset < 64);
    } else if (code == OMENDB_OK) {
        CHECK(offset >= ends[delivered->count] && offset < ends[delivered->count + 1] &&
              replay->torn);
    } else {
        CHECK(code == OMENDB_NOTFOUND && offset < 64 && delivered->count == 0);
    }
}

static void flip_each_byte(int synced)
{
    struct wal_replay replay;
    struct delivered delivered;
    uint64_t ends[7];
    fixture_begin(OMENDB_IO_MAP);
    make_log(6, synced, ends);
    for (uint64_t offset = 0; offset < fixture_file_size(WAL_NAME); offset++) {
        for (unsigned mask = 1; mask < 256; mask = mask == 128   ? 255
                                                   : mask == 255 ? 256
                                                                 : mask * 2) {
            fixture_flip(WAL_NAME, offset, (uint8_t)mask);
            const int code = read_small(&replay, &delivered);
            check_flip(offset, synced, ends, code, &replay, &delivered);
            if (test_failures > 0) {
                fprintf(stderr, "offset %llu, mask %u, synced %d: code %d, %llu records\n",
                        (unsigned long long)offset, mask, synced, code,
                        (unsigned long long)delivered.count);
                return;
            }
            fixture_flip(WAL_NAME, offset, (uint8_t)mask);
        }
    }
    fixture_end();
}

TEST(wal_flip_below_what_was_durable_is_corruption)
{
    flip_each_byte(1);
}

TEST(wal_flip_in_what_nobody_vouches_for_ends_the_log)
{
    flip_each_byte(0);
}

TEST(wal_lost_middle_of_an_unsynced_group_ends_the_log)
{
    struct wal_replay replay;
    struct delivered delivered;
    uint64_t ends[7];
    uint8_t zeros[256] = {0};
    fixture_begin(OMENDB_IO_MAP);
    make_log(6, 0, ends);
    fixture_file_write(WAL_NAME, ends[2], zeros, (size_t)(ends[3] - ends[2]));
    CHECK_EQ_INT(read_small(&replay, &delivered), OMENDB_OK);
    CHECK(delivered.count == 2 && replay.end == ends[2] && replay.torn);
    fixture_end();
}

TEST(wal_with_a_known_length_must_be_whole)
{
    struct wal_replay replay = {.number = 7};
    struct delivered delivered;
    uint64_t ends[7];
    fixture_begin(OMENDB_IO_MAP);
    make_log(6, 0, ends);
    for (uint64_t known = 0; known < fixture_file_size(WAL_NAME) + 8; known++) {
        uint64_t whole = 0;
        replay.final_length = known;
        const int code = read_from(&replay, &delivered, 100);
        while (whole < 6 && ends[whole] < known)
            whole++;
        CHECK_EQ_INT(code, known >= 64 && ends[whole] == known ? OMENDB_OK : OMENDB_CORRUPT);
        CHECK(!delivered.wrong && (code != OMENDB_OK || delivered.count == whole));
    }
    replay.final_length = ends[6];
    for (uint64_t offset = 0; offset < ends[6]; offset++) {
        fixture_flip(WAL_NAME, offset, 0x40);
        const int code = read_from(&replay, &delivered, 100);
        CHECK(code == OMENDB_CORRUPT || (code == OMENDB_FORMAT && offset < 64));
        CHECK(!delivered.wrong);
        fixture_flip(WAL_NAME, offset, 0x40);
    }
    fixture_end();
}

/* Changes a field of the header and signs it anew. */
static void patch_header(uint64_t offset, uint32_t value)
{
    uint8_t header[64];
    fixture_file_read(WAL_NAME, 0, header, sizeof header);
    format_put32(header + offset, value);
    storage_header_end(header);
    fixture_file_write(WAL_NAME, 0, header, sizeof header);
}

TEST(wal_of_a_later_format_is_refused)
{
    struct wal_replay replay;
    struct delivered delivered;
    uint64_t ends[2];
    fixture_begin(OMENDB_IO_MAP);
    make_log(1, 0, ends);
    patch_header(8, FORMAT_VERSION + 1);
    CHECK_EQ_INT(read_small(&replay, &delivered), OMENDB_FORMAT);
    patch_header(8, FORMAT_VERSION);
    patch_header(20, 4);
    CHECK_EQ_INT(read_small(&replay, &delivered), OMENDB_FORMAT);
    patch_header(20, 0);
    patch_header(12, 4); /* may be ignored */
    CHECK_EQ_INT(read_small(&replay, &delivered), OMENDB_OK);
    CHECK_EQ_INT(delivered.count, 1);
    fixture_end();
}

/* A tail in which every eighth byte begins what claims to be a long record. */
TEST(wal_search_of_a_hostile_tail_is_bounded)
{
    struct wal_replay replay;
    struct delivered delivered;
    struct wal wal;
    const size_t size = 1 << 20;
    uint8_t *bytes = calloc(1, size);
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 4096, 1, &wal), OMENDB_OK);
    for (size_t at = 0; at + 40 <= size; at += 40) {
        format_put32(bytes + at, (uint32_t)(size - at - 40));
        format_put64(bytes + at + 16, wal.log_id);
    }
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_file_write(WAL_NAME, 64, bytes, size);
    free(bytes);
    fixture.bytes_read = 0;
    CHECK_EQ_INT(read_small(&replay, &delivered), OMENDB_CORRUPT);
    CHECK(fixture.bytes_read < 16 * size);
    CHECK_EQ_INT(delivered.count, 0);
    fixture_end();
}

TEST(wal_mutated_at_random_never_gives_a_wrong_record)
{
    struct wal_replay replay;
    struct delivered delivered;
    uint64_t ends[13], state = 1;
    fixture_begin(OMENDB_IO_MAP);
    make_log(12, 1, ends);
    const size_t size = (size_t)fixture_file_size(WAL_NAME);
    uint8_t *bytes = malloc(size), *mutated = malloc(size);
    fixture_file_read(WAL_NAME, 0, bytes, size);
    for (int round = 0; round < 20000; round++) {
        memcpy(mutated, bytes, size);
        for (uint64_t i = fixture_random(&state) % 4; i < 4; i++) {
            const size_t from = fixture_random(&state) % (size - 64),
                         to = fixture_random(&state) % (size - 64);
            memmove(mutated + to, mutated + from, fixture_random(&state) % 64);
        }
        fixture_file_make(WAL_NAME, mutated, size);
        const int code = read_small(&replay, &delivered);
        CHECK(code == OMENDB_OK || code == OMENDB_CORRUPT || code == OMENDB_FORMAT ||
              code == OMENDB_NOTFOUND);
        CHECK(!delivered.wrong);
    }
    free(bytes);
    free(mutated);
    fixture_end();
}

/* ---------------------------------------------------------------------------------------------------
 * a reader beside a writer */

TEST(wal_live_reader_sees_what_is_known_durable_and_goes_on)
{
    struct wal wal;
    struct delivered delivered;
    struct wal_replay replay = {.number = 7, .final_length = WAL_LENGTH_UNKNOWN, .live_reader = 1};
    uint64_t ends[5];
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 2048, 1, &wal), OMENDB_OK);
    ends[0] = wal.length;
    for (int i = 0; i < 4; i++) {
        if (i == 2)
            wal_set_durable(&wal, ends[2]);
        if (i == 3)
            wal_set_durable(&wal, ends[3]);
        CHECK_EQ_INT(append_small(&wal, 100 + (uint64_t)i), OMENDB_OK);
        ends[i + 1] = wal.length;
        CHECK_EQ_INT(read_from(&replay, &delivered,
                               replay.first_sequence == 0 ? 100 : replay.first_sequence),
                     OMENDB_OK);
        CHECK_EQ_INT(delivered.count, i == 2 ? 2 : i == 3 ? 1 : 0);
        CHECK(!delivered.wrong && !replay.torn);
        replay.start_offset = replay.end;
        replay.first_sequence = replay.next_sequence;
    }
    CHECK_EQ_INT(replay.end, ends[3]);
    CHECK_EQ_INT(replay.next_sequence, 103);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_end();
}

TEST(wal_live_reader_takes_an_incomplete_frame_for_the_end)
{
    struct delivered delivered;
    struct wal_replay replay = {.number = 7, .final_length = WAL_LENGTH_UNKNOWN, .live_reader = 1};
    uint64_t ends[7];
    fixture_begin(OMENDB_IO_MAP);
    make_log(6, 1, ends);
    fixture_flip(WAL_NAME, ends[5] + 41, 1);
    CHECK_EQ_INT(read_from(&replay, &delivered, 100), OMENDB_OK);
    CHECK(delivered.count == 4 && !replay.torn);
    fixture_flip(WAL_NAME, ends[2] + 8, 1);
    CHECK_EQ_INT(read_from(&replay, &delivered, 100), OMENDB_CORRUPT);
    fixture_end();
}

static void cut_to_half_a_record(void)
{
    fixture_file_truncate(WAL_NAME, 64 + 50);
}

TEST(wal_live_reader_survives_a_writer_that_cuts)
{
    struct delivered delivered;
    struct wal_replay replay = {.number = 7, .final_length = WAL_LENGTH_UNKNOWN, .live_reader = 1};
    uint64_t ends[7];
    fixture_begin(OMENDB_IO_MAP);
    make_log(6, 0, ends);
    fixture_file_truncate(WAL_NAME, ends[6]);
    fixture.before_read = cut_to_half_a_record;
    const int code = read_from(&replay, &delivered, 100);
    CHECK(code == OMENDB_OK || code == OMENDB_NOTFOUND);
    CHECK_EQ_INT(delivered.count, 0);
    fixture_end();
}

static uint64_t length_without_reserve;

static void give_back_the_reserve(void)
{
    fixture_file_truncate(WAL_NAME, length_without_reserve);
}

/* Of a log that is being written, and of one that another log has followed meanwhile. */
TEST(wal_reader_goes_on_when_a_writer_gives_back_what_it_reserved)
{
    for (int live = 0; live < 2; live++) {
        struct delivered delivered;
        struct wal_replay replay = {.number = 7, .live_reader = live, .may_sync = live};
        uint64_t ends[7];
        fixture_begin(OMENDB_IO_MAP);
        make_log(6, 0, ends);
        length_without_reserve = ends[6];
        replay.final_length = live ? WAL_LENGTH_UNKNOWN : ends[6];
        fixture_file_truncate(WAL_NAME, ends[6]);
        fixture_file_truncate(WAL_NAME, ends[6] + 4096);
        fixture.before_read = give_back_the_reserve;
        CHECK_EQ_INT(read_from(&replay, &delivered, 100), OMENDB_OK);
        CHECK(fixture.before_read == NULL && fixture_file_size(WAL_NAME) == ends[6]);
        CHECK(delivered.count == 6 && !delivered.wrong);
        fixture_end();
    }
}

static void complete_the_record(void)
{
    fixture_flip(WAL_NAME, 64 + 40 + 1, 0xff);
}

/* What was incomplete when it was looked at is whole when a later record vouches for it. Whichever
 * read finds it whole first. */
TEST(wal_live_reader_looks_again_before_it_cries_corruption)
{
    int completed = 1, reads = 0;
    for (; completed; reads++) {
        struct delivered delivered;
        struct wal_replay replay = {
            .number = 7, .final_length = WAL_LENGTH_UNKNOWN, .live_reader = 1};
        uint64_t ends[7];
        fixture_begin(OMENDB_IO_MAP);
        make_log(6, 1, ends);
        fixture_flip(WAL_NAME, 64 + 40 + 1, 0xff);
        fixture.before_read = complete_the_record;
        fixture.before_read_after = reads;
        const int code = read_from(&replay, &delivered, 100);
        completed = fixture.before_read == NULL;
        CHECK_EQ_INT(code, completed ? OMENDB_OK : OMENDB_CORRUPT);
        CHECK_EQ_INT(delivered.count, completed ? 5 : 0);
        fixture_end();
    }
    CHECK(reads > 2);
}

/* The first sector is lost, and in it the header and the beginning of a large record, each word of
 * which may then be the number of a log. */
TEST(wal_without_its_first_sector_is_read_a_few_times_only)
{
    enum { BYTES = 3 << 20 };
    struct wal wal;
    struct delivered delivered;
    struct wal_replay replay = {.number = 7, .final_length = WAL_LENGTH_UNKNOWN};
    uint8_t *payload = payload_make(100, BYTES), sector[512] = {0};
    const struct wal_piece piece = {payload, BYTES};
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 6, 4096, 2048, 1, &wal), OMENDB_OK);
    CHECK_EQ_INT(wal_append(&wal, 100, WAL_COMMIT, &piece, 1), OMENDB_OK);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_file_write(WAL_NAME, 0, sector, sizeof sector);
    fixture.bytes_read = 0;
    const int code = read_from(&replay, &delivered, 100);
    CHECK(code == OMENDB_NOTFOUND || code == OMENDB_CORRUPT);
    CHECK(fixture.bytes_read < 10 * BYTES);
    free(payload);
    fixture_end();
}

/* ---------------------------------------------------------------------------------------------------
 * a full disk, failing calls, no memory */

static int tail_is_zero(const struct wal *wal)
{
    const uint64_t size = fixture_file_size(WAL_NAME);
    uint8_t *tail = calloc(1, (size_t)(size - wal->length) + 1);
    fixture_file_read(WAL_NAME, wal->length, tail, (size_t)(size - wal->length));
    const int zero = format_is_zero(tail, (size_t)(size - wal->length));
    free(tail);
    return zero;
}

TEST(wal_full_disk_leaves_no_trace)
{
    struct wal wal;
    struct wal_replay replay;
    struct delivered delivered;
    const uint64_t large = 200000;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 2048, 1, &wal), OMENDB_OK);
    CHECK_EQ_INT(append_small(&wal, 100), OMENDB_OK);
    uint8_t *payload = payload_make(1, large);
    const struct wal_piece pieces[3] = {{payload, 100}, {payload, large}, {payload, 100}};
    for (int after = 0; after < 3; after++) {
        const uint64_t length = wal.length;
        fixture_fail(FIXTURE_WRITE | FIXTURE_ALLOCATE, after, 1, OMENDB_FULL);
        CHECK_EQ_INT(wal_append(&wal, 101, WAL_COMMIT, pieces, 3), OMENDB_FULL);
        fixture_heal();
        CHECK(strstr(error_text(), WAL_NAME) != NULL &&
              strstr(error_text(), "free some space") != NULL);
        CHECK_EQ_INT(wal.length, length);
        CHECK(tail_is_zero(&wal));
    }
    free(payload);
    CHECK_EQ_INT(append_small(&wal, 101), OMENDB_OK);
    CHECK_EQ_INT(read_small(&replay, &delivered), OMENDB_OK);
    CHECK(delivered.count == 2 && !delivered.wrong && !replay.torn && replay.end == wal.length);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_end();
}

TEST(wal_writes_on_where_space_cannot_be_reserved)
{
    struct wal wal;
    struct wal_replay replay;
    struct delivered delivered;
    fixture_begin(OMENDB_IO_MAP);
    fixture_fail(FIXTURE_ALLOCATE, 0, 1, OMENDB_FULL);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 2048, 1, &wal), OMENDB_OK);
    for (uint64_t i = 0; i < 6; i++)
        CHECK_EQ_INT(append_small(&wal, 100 + i), OMENDB_OK);
    CHECK_EQ_INT(fixture_file_size(WAL_NAME), wal.length);
    CHECK_EQ_INT(read_small(&replay, &delivered), OMENDB_OK);
    CHECK(delivered.count == 6 && !delivered.wrong);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_end();
}

TEST(wal_that_cannot_be_cut_is_poisoned)
{
    struct wal wal;
    struct wal_replay replay;
    struct delivered delivered;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 2048, 1, &wal), OMENDB_OK);
    CHECK_EQ_INT(append_small(&wal, 100), OMENDB_OK);
    fixture_fail(FIXTURE_WRITE | FIXTURE_TRUNCATE, 0, 1, OMENDB_IOERR);
    CHECK_EQ_INT(append_small(&wal, 101), OMENDB_POISONED);
    fixture_heal();
    CHECK_EQ_INT(append_small(&wal, 101), OMENDB_POISONED);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    CHECK_EQ_INT(read_small(&replay, &delivered), OMENDB_OK);
    CHECK(delivered.count == 1 && replay.torn);
    fixture_end();
}

TEST(wal_refuses_writes_after_a_failed_sync)
{
    struct wal wal;
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 2048, 1, &wal), OMENDB_OK);
    CHECK_EQ_INT(append_small(&wal, 100), OMENDB_OK);
    fixture_fail(FIXTURE_SYNC, 0, 0, OMENDB_IOERR);
    CHECK_EQ_INT(wal_sync(&wal), OMENDB_IOERR);
    CHECK_EQ_INT(append_small(&wal, 101), OMENDB_POISONED);
    CHECK_EQ_INT(fixture.storage.sync_failed, 1);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_end();
}

TEST(wal_creation_that_fails_leaves_no_log)
{
    fixture_begin(OMENDB_IO_MAP);
    for (int after = 0;; after++) {
        struct wal wal;
        fixture_fail(FIXTURE_OPEN | FIXTURE_WRITE | FIXTURE_SYNC | FIXTURE_SYNC_DIRECTORY, after, 0,
                     OMENDB_IOERR);
        const int code = wal_create(&fixture.storage, 7, 100, 6, 4096, 2048, 1, &wal);
        const int calls = fixture.calls;
        fixture_heal();
        CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
        if (code == OMENDB_OK) {
            CHECK_EQ_INT(calls, 4);
            break;
        }
        CHECK_EQ_INT(code, OMENDB_IOERR);
        CHECK(!fixture_exists(WAL_NAME));
        CHECK_EQ_INT(fixture_held(), 0);
    }
    struct wal again;
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 6, 4096, 2048, 1, &again), OMENDB_EXISTS);
    CHECK(fixture_exists(WAL_NAME));
    fixture_fail(FIXTURE_WRITE | FIXTURE_UNLINK, 0, 1, OMENDB_IOERR);
    CHECK_EQ_INT(wal_create(&fixture.storage, 8, 100, 6, 4096, 2048, 1, &again), OMENDB_POISONED);
    fixture_end();
}

TEST(wal_refuses_a_commit_that_is_too_big)
{
    struct wal wal;
    uint8_t byte = 0;
    const struct wal_piece pieces[2] = {{&byte, 1}, {&byte, UINT32_MAX}};
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 2048, 1, &wal), OMENDB_OK);
    CHECK_EQ_INT(wal_append(&wal, 100, WAL_COMMIT, pieces, 2), OMENDB_TOOBIG);
    CHECK_EQ_INT(append_small(&wal, 100), OMENDB_OK);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_end();
}

TEST(wal_reading_survives_every_failing_call_and_allocation)
{
    struct wal_replay replay;
    struct delivered delivered;
    uint64_t ends[7];
    int after = 0, code = OMENDB_NOMEM;
    fixture_begin(OMENDB_IO_MAP);
    make_log(6, 1, ends);
    for (; code != OMENDB_OK; after++) {
        fixture.allocations_left = after;
        code = read_small(&replay, &delivered);
        CHECK(code == OMENDB_OK || code == OMENDB_NOMEM);
        CHECK(!delivered.wrong && fixture_held() == 0);
    }
    CHECK(after > 1);
    fixture_heal();
    for (after = 0;; after++) {
        fixture_fail(FIXTURE_ALL, after, 0, OMENDB_IOERR);
        code = read_small(&replay, &delivered);
        CHECK(!delivered.wrong && fixture_held() == 0);
        if (fixture.calls <= after)
            break;
        CHECK(code == OMENDB_IOERR ||
              (code == OMENDB_OK && delivered.count == 6)); /* close alone does not matter */
    }
    CHECK(code == OMENDB_OK && after >= 4);
    fixture_end();
}

/* ---------------------------------------------------------------------------------------------------
 * logs of more than the window that is read at a time */

#define WIDE_RECORDS 6
#define WIDE_BYTES   ((size_t)400000) /* of a payload; the last is as large as two windows */

static size_t wide_size(uint64_t sequence)
{
    return sequence == 100 + WIDE_RECORDS - 1 ? ((size_t)2 << 20) + 5 : WIDE_BYTES;
}

/* What is salvaged may have gaps. */
static int expect_some_wide(void *context, const struct wal_record *record)
{
    struct delivered *delivered = context;
    delivered->wrong |= record->sequence < delivered->first + delivered->count ||
                        record->size != wide_size(record->sequence);
    for (size_t i = 0; i < record->size && !delivered->wrong; i += 997)
        delivered->wrong |= record->payload[i] != payload_byte(record->sequence, i);
    delivered->count++;
    return OMENDB_OK;
}

/* What is read is a prefix. */
static int expect_wide(void *context, const struct wal_record *record)
{
    struct delivered *delivered = context;
    delivered->wrong |= record->sequence != delivered->first + delivered->count;
    return expect_some_wide(context, record);
}

/* Records 100 and following, each synced before the next; ends: their offsets. */
static void make_wide_log(uint64_t *ends)
{
    struct wal wal;
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 4096, 1, &wal), OMENDB_OK);
    ends[0] = wal.length;
    for (uint64_t i = 0; i < WIDE_RECORDS; i++) {
        uint8_t *payload = payload_make(100 + i, wide_size(100 + i));
        const struct wal_piece piece = {payload, wide_size(100 + i)};
        const int code = wal_append(&wal, 100 + i, WAL_COMMIT, &piece, 1);
        free(payload);
        CHECK_EQ_INT(code, OMENDB_OK);
        wal_set_durable(&wal, wal.length);
        ends[i + 1] = wal.length;
    }
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
}

struct wide_reading {
    int salvages, live;
    uint64_t final_length;
};

static void count_sentence(void *context, const char *sentence)
{
    (void)context;
    (void)sentence;
}

static int read_wide(const struct wide_reading *reading, struct delivered *delivered)
{
    struct wal_replay replay = {
        .number = 7, .final_length = reading->final_length, .live_reader = reading->live};
    memset(delivered, 0, sizeof *delivered);
    delivered->first = 100;
    return reading->salvages
               ? wal_salvage(&fixture.storage, 7, expect_some_wide, count_sentence, delivered)
               : wal_read(&fixture.storage, &replay, expect_wide, delivered);
}

static const struct wide_reading wide_readings[] = {
    {0, 0, WAL_LENGTH_UNKNOWN}, {0, 1, WAL_LENGTH_UNKNOWN}, {1, 0, WAL_LENGTH_UNKNOWN}};

/* Whole, with a damaged header, and with a damaged record in the middle, at every call and every
 * allocation: an error of the system stays one, and is never the end of the log. */
TEST(wal_of_many_windows_tells_of_every_failing_read)
{
    static const uint64_t damage[] = {UINT64_MAX, 30, 64 + 40 + WIDE_BYTES + 100};
    struct delivered delivered;
    uint64_t ends[WIDE_RECORDS + 1];
    fixture_begin(OMENDB_IO_MAP);
    make_wide_log(ends);
    for (size_t d = 0; d < 3; d++) {
        if (damage[d] != UINT64_MAX)
            fixture_flip(WAL_NAME, damage[d], 1);
        for (size_t r = 0; r < 3; r++) {
            const int expected = read_wide(&wide_readings[r], &delivered);
            const uint64_t count = delivered.count;
            CHECK(!delivered.wrong);
            CHECK(d == 0 || wide_readings[r].salvages ? expected == OMENDB_OK
                                                      : expected == OMENDB_CORRUPT);
            /* a reader beside a writer looks at all of it first */
            CHECK_EQ_INT(count, d == 0   ? WIDE_RECORDS - (r == 1)
                                : r == 2 ? WIDE_RECORDS - (d == 2)
                                         : d == 2 && r == 0);
            for (int after = 0;; after++) {
                fixture_fail(FIXTURE_READ, after, 0, OMENDB_IOERR);
                const int code = read_wide(&wide_readings[r], &delivered);
                const int calls = fixture.calls;
                fixture_heal();
                if (calls <= after)
                    break;
                /* Salvage asks once more, page by page. */
                if (wide_readings[r].salvages && code == OMENDB_OK)
                    CHECK_EQ_INT(delivered.count, count);
                else
                    CHECK_EQ_INT(code, OMENDB_IOERR);
                CHECK(!delivered.wrong && delivered.count <= count && fixture_held() == 0);
            }
            for (int after = 0;; after++) {
                fixture.allocations_left = after;
                const int code = read_wide(&wide_readings[r], &delivered);
                fixture_heal();
                CHECK(!delivered.wrong && fixture_held() == 0);
                if (code == expected)
                    break;
                CHECK_EQ_INT(code, OMENDB_NOMEM);
            }
        }
        if (damage[d] != UINT64_MAX)
            fixture_flip(WAL_NAME, damage[d], 1);
    }
    fixture_end();
}

static uint64_t wide_cut_size;

static void cut_before_a_read(void)
{
    fixture_file_truncate(WAL_NAME, wide_cut_size);
}

/* A writer in another process cuts the log, at whatever moment: a reader beside it shows a prefix,
 * or that there is no log; what reads a log that nobody writes to tells of the system's error. */
TEST(wal_cut_before_any_read_is_an_end_for_a_live_reader_only)
{
    struct delivered delivered;
    uint64_t ends[WIDE_RECORDS + 1];
    int cut = 0;
    fixture_begin(OMENDB_IO_MAP);
    make_wide_log(ends);
    const size_t size = (size_t)fixture_file_size(WAL_NAME);
    uint8_t *bytes = malloc(size);
    fixture_file_read(WAL_NAME, 0, bytes, size);
    const uint64_t sizes[] = {0, 64, ends[1], ends[2] - 1, ends[4]};
    for (int live = 0; live < 2; live++) {
        for (int damaged = 0; damaged < 3; damaged++) {
            for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
                for (int reads = 0;; reads++) {
                    const struct wide_reading reading = {0, live, WAL_LENGTH_UNKNOWN};
                    fixture_file_make(WAL_NAME, bytes, size);
                    if (damaged != 0)
                        fixture_flip(WAL_NAME, damaged == 1 ? 30 : ends[1] + 100, 1);
                    wide_cut_size = sizes[s];
                    fixture.before_read = cut_before_a_read;
                    fixture.before_read_after = reads;
                    const int code = read_wide(&reading, &delivered);
                    const int happened = fixture.before_read == NULL;
                    fixture.before_read = NULL;
                    fixture.before_read_after = 0;
                    CHECK(!delivered.wrong && fixture_held() == 0);
                    if (!happened)
                        break;
                    if (live && damaged == 0)
                        CHECK(code == OMENDB_OK || (code == OMENDB_NOTFOUND && sizes[s] == 0));
                    CHECK(code == OMENDB_OK || code == OMENDB_NOTFOUND || code == OMENDB_CORRUPT ||
                          (!live && code == OMENDB_IOERR));
                    cut++;
                }
            }
        }
    }
    CHECK(cut > 30);
    free(bytes);
    fixture_end();
}

TEST(wal_of_no_name_and_places_where_no_record_can_begin_are_corruption)
{
    struct wal none;
    struct wal_replay replay = {
        .number = 7, .final_length = WAL_LENGTH_UNKNOWN, .start_offset = 64 + 4};
    struct delivered delivered;
    uint64_t ends[7];
    memset(&none, 0, sizeof none);
    CHECK_EQ_INT(wal_close(&none), OMENDB_OK);
    fixture_begin(OMENDB_IO_MAP);
    make_log(6, 1, ends);
    CHECK_EQ_INT(read_from(&replay, &delivered, 100), OMENDB_CORRUPT);
    CHECK(strstr(error_text(), "cannot go on at offset 68") != NULL);
    /* a known length is a limit for a reader beside a writer, too */
    replay = (struct wal_replay){.number = 7, .final_length = ends[4], .live_reader = 1};
    CHECK_EQ_INT(read_from(&replay, &delivered, 100), OMENDB_OK);
    CHECK_EQ_INT(delivered.count, 4);
    patch_header(FORMAT_WAL_LOG_ID, 0);
    patch_header(FORMAT_WAL_LOG_ID + 4, 0);
    CHECK_EQ_INT(read_small(&replay, &delivered), OMENDB_CORRUPT);
    CHECK(strstr(error_text(), "names no log") != NULL);
    fixture_end();
}

/* Their sequences, in `ends`. */
static int expect_any(void *context, const struct wal_record *record)
{
    struct delivered *delivered = context;
    delivered->ends[delivered->count++] = record->sequence;
    return OMENDB_OK;
}

static char salvage_sentences[8][ERROR_TEXT_BYTES];
static size_t salvage_told;

static void keep_sentence(void *context, const char *sentence)
{
    (void)context;
    if (salvage_told < 8)
        snprintf(salvage_sentences[salvage_told++], ERROR_TEXT_BYTES, "%s", sentence);
}

static int salvage_small(struct delivered *delivered)
{
    memset(delivered, 0, sizeof *delivered);
    delivered->first = 100;
    salvage_told = 0;
    return wal_salvage(&fixture.storage, 7, expect_small, keep_sentence, delivered);
}

TEST(wal_salvage_tells_what_is_lost_before_the_first_record)
{
    struct delivered delivered;
    uint64_t ends[7];
    fixture_begin(OMENDB_IO_MAP);
    make_log(6, 1, ends);
    fixture_flip(WAL_NAME, ends[0] + 20, 1);
    memset(&delivered, 0, sizeof delivered);
    salvage_told = 0;
    delivered.first = 101;
    CHECK_EQ_INT(wal_salvage(&fixture.storage, 7, expect_small, keep_sentence, &delivered),
                 OMENDB_OK);
    CHECK(delivered.count == 5 && !delivered.wrong);
    CHECK_EQ_INT(salvage_told, 1);
    CHECK(strstr(salvage_sentences[0], "commits before commit 101 are lost") != NULL);
    fixture_flip(WAL_NAME, ends[0] + 20, 1);
    patch_header(8, FORMAT_VERSION + 1); /* a later format is not guessed at */
    CHECK_EQ_INT(salvage_small(&delivered), OMENDB_FORMAT);
    CHECK_EQ_INT(delivered.count, 0);
    fixture_file_truncate(WAL_NAME, 8); /* not even a header */
    CHECK_EQ_INT(salvage_small(&delivered), OMENDB_OK);
    CHECK_EQ_INT(delivered.count, 0);
    fixture_file_make(WAL_NAME,
                      "another file altogether, of another magic, of more than 64 bytes..", 66);
    CHECK_EQ_INT(salvage_small(&delivered), OMENDB_OK);
    CHECK_EQ_INT(delivered.count, 0);
    fixture_end();
}

/* The payload of a damaged record holds the copy of an older one, which is no commit of this place.
 */
TEST(wal_salvage_takes_no_copy_of_an_older_record)
{
    struct wal wal;
    struct delivered delivered;
    uint8_t copy[128];
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 100, 0, 0, 2048, 1, &wal), OMENDB_OK);
    CHECK_EQ_INT(append_small(&wal, 100), OMENDB_OK);
    const size_t size = (size_t)(wal.length - 64);
    CHECK(size <= sizeof copy);
    fixture_file_read(WAL_NAME, 64, copy, size);
    const uint64_t place = wal.length;
    const struct wal_piece piece = {copy, size};
    CHECK_EQ_INT(wal_append(&wal, 101, WAL_COMMIT, &piece, 1), OMENDB_OK);
    CHECK_EQ_INT(append_small(&wal, 102), OMENDB_OK);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_flip(WAL_NAME, place + 4, 1);
    memset(&delivered, 0, sizeof delivered);
    salvage_told = 0;
    CHECK_EQ_INT(wal_salvage(&fixture.storage, 7, expect_any, keep_sentence, &delivered),
                 OMENDB_OK);
    CHECK_EQ_INT(delivered.count, 2);
    CHECK(delivered.ends[0] == 100 && delivered.ends[1] == 102);
    CHECK_EQ_INT(salvage_told, 1);
    CHECK(strstr(salvage_sentences[0], "1 commits between commit 100 and commit 102") != NULL);
    fixture_end();
}

/* Each place claims to begin a record of half of the file, which is more than the window: one after
 * the other they would have it read thousands of times. */
static void salvage_hostile(size_t size, uint64_t most, int nameless)
{
    struct delivered delivered;
    uint64_t ends[2], log_id;
    uint8_t *bytes = calloc(1, size);
    fixture_begin(OMENDB_IO_MAP);
    make_log(1, 1, ends);
    fixture_file_read(WAL_NAME, FORMAT_WAL_LOG_ID, &log_id, sizeof log_id);
    for (size_t at = 0; at + 40 <= size; at += 40) {
        format_put32(bytes + at, (uint32_t)(at < size / 2 ? size / 2 : size - at - 40));
        memcpy(bytes + at + FORMAT_RECORD_LOG_ID, &log_id, sizeof log_id);
    }
    fixture_file_write(WAL_NAME, ends[1], bytes, size);
    free(bytes);
    if (nameless)
        fixture_flip(WAL_NAME, FORMAT_WAL_LOG_ID, 1);
    fixture.bytes_read = 0;
    CHECK_EQ_INT(salvage_small(&delivered), OMENDB_OK);
    CHECK(fixture.bytes_read < most * size);
    CHECK_EQ_INT(delivered.count, 1);
    CHECK(salvage_told > 0);
    CHECK(strstr(salvage_sentences[salvage_told - 1], "up to the end are no records") != NULL);
    fixture_end();
}

TEST(wal_salvage_of_a_hostile_log_is_bounded)
{
    salvage_hostile(4 << 20, 16, 0);
    CHECK_EQ_INT(salvage_told, 1);
}

TEST(wal_salvage_of_a_hostile_log_without_its_header_is_bounded)
{
    salvage_hostile(4 << 20, 16, 1);
}

/* The one whose bytes were made by hand from the text of format.h. */
TEST(wal_bytes_are_as_documented)
{
    struct wal wal;
    uint8_t bytes[64 + 48];
    const struct wal_piece piece = {"abc", 3};
    fixture_begin(OMENDB_IO_MAP);
    CHECK_EQ_INT(wal_create(&fixture.storage, 7, 0x0102, 6, 0x0304, 2048, 1, &wal), OMENDB_OK);
    CHECK_EQ_INT(wal_append(&wal, 0x0102, WAL_COMMIT, &piece, 1), OMENDB_OK);
    fixture_file_read(WAL_NAME, 0, bytes, sizeof bytes);
    CHECK(memcmp(bytes, "OMENDBWL\2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24) == 0);
    CHECK(memcmp(bytes + 24, &wal.log_id, 8) == 0);
    CHECK(memcmp(bytes + 32, "\2\1\0\0\0\0\0\0\6\0\0\0\0\0\0\0\4\3\0\0\0\0\0\0", 24) == 0);
    CHECK_EQ_INT(format_get32(bytes + 56), checksum_crc32c(0, bytes, 56));
    CHECK(memcmp(bytes + 60, "\0\0\0\0\3\0\0\0", 8) == 0);
    CHECK_EQ_INT(format_get32(bytes + 68),
                 checksum_crc32c(checksum_crc32c(0, bytes + 64, 4), bytes + 72, 40));
    CHECK(memcmp(bytes + 72, "\2\1\0\0\0\0\0\0", 8) == 0 &&
          memcmp(bytes + 80, &wal.log_id, 8) == 0);
    CHECK(memcmp(bytes + 88, "\x40\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0abc\0\0\0\0\0", 24) == 0);
    CHECK_EQ_INT(wal_close(&wal), OMENDB_OK);
    fixture_end();
}

TEST_MAIN(wal_gives_back_payloads_of_every_size, wal_writes_a_small_record_at_once,
          wal_writes_nothing_ahead_of_large_records_or_where_nobody_waits_for_syncs,
          wal_goes_on_where_zeros_cannot_be_written_ahead, wal_ends_where_delivery_is_refused,
          wal_expects_the_sequence_that_must_follow, wal_cut_at_any_length_gives_a_prefix,
          wal_flip_below_what_was_durable_is_corruption,
          wal_flip_in_what_nobody_vouches_for_ends_the_log,
          wal_lost_middle_of_an_unsynced_group_ends_the_log, wal_with_a_known_length_must_be_whole,
          wal_of_a_later_format_is_refused, wal_search_of_a_hostile_tail_is_bounded,
          wal_mutated_at_random_never_gives_a_wrong_record,
          wal_live_reader_sees_what_is_known_durable_and_goes_on,
          wal_live_reader_takes_an_incomplete_frame_for_the_end,
          wal_live_reader_survives_a_writer_that_cuts,
          wal_live_reader_looks_again_before_it_cries_corruption,
          wal_without_its_first_sector_is_read_a_few_times_only,
          wal_reader_goes_on_when_a_writer_gives_back_what_it_reserved,
          wal_full_disk_leaves_no_trace, wal_writes_on_where_space_cannot_be_reserved,
          wal_that_cannot_be_cut_is_poisoned, wal_refuses_writes_after_a_failed_sync,
          wal_creation_that_fails_leaves_no_log, wal_refuses_a_commit_that_is_too_big,
          wal_reading_survives_every_failing_call_and_allocation,
          wal_of_many_windows_tells_of_every_failing_read,
          wal_cut_before_any_read_is_an_end_for_a_live_reader_only,
          wal_of_no_name_and_places_where_no_record_can_begin_are_corruption,
          wal_salvage_tells_what_is_lost_before_the_first_record,
          wal_salvage_takes_no_copy_of_an_older_record, wal_salvage_of_a_hostile_log_is_bounded,
          wal_salvage_of_a_hostile_log_without_its_header_is_bounded, wal_bytes_are_as_documented)
