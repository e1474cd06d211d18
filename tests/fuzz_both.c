/* fuzz_both.c: one of the real databases, damage to bytes of its files, then operations. The damage
 * may have any effect but memory unsafety, a hang, or an answer that is neither an error nor sane.
 *
 * Input: u8 base and whether to repair the checksums, u8 pieces of damage, each of 6 bytes: u8
 * file, u8 how, u16 place, u16 value; then the operations of fuzz_operations.c. */
#include "fuzz.h"
#include "fuzz_database.h"
#include "fuzz_calls.h"

#define FUZZ_DAMAGE_BYTES 6

/* Places near the end of a file, where footers are, are as likely as those near its beginning. */
static void fuzz_both_damage(struct fuzz_files *files, const uint8_t *piece)
{
    struct fuzz_file *file = &files->file[piece[0] % files->count];
    size_t place = (size_t)piece[2] | (size_t)piece[3] << 8;
    uint8_t value[4] = {piece[4], piece[5], 0, 0};
    if (file->size < 4)
        return;
    place = (piece[1] & 1) ? file->size - 1 - place % file->size : place % file->size;
    switch (piece[1] >> 1 & 3) {
    case 0:
        file->bytes[place] = value[0];
        break;
    case 1:
        file->bytes[place] ^= (uint8_t)(1u << value[0] % 8);
        break;
    case 2:
        place = place / 4 * 4;
        memset(value + 2, value[1] & 0x80 ? 0xff : 0, 2);
        memcpy(file->bytes + (place < file->size - 4 ? place : file->size - 4), value, 4);
        break;
    default:
        file->size = piece[5] == 0 ? place : file->size;
    }
}

static int fuzz_both_run(const uint8_t *data, size_t size)
{
    struct fuzz_files files;
    struct fuzz_disk disk;
    struct fuzz_calls calls;
    if (size < 2)
        return 0;
    uint8_t base = data[0];
    size_t pieces = data[1] % 8;
    data += 2;
    size -= 2;
    fuzz_files_of_disk(&files, fuzz_base(base & 7), (1u << FUZZ_LOCK) - 1);
    for (; pieces > 0 && size >= FUZZ_DAMAGE_BYTES; pieces--) {
        fuzz_both_damage(&files, data);
        data += FUZZ_DAMAGE_BYTES;
        size -= FUZZ_DAMAGE_BYTES;
    }
    if ((base & 8) != 0)
        fuzz_repair(&files, (base & 16) != 0);
    fuzz_disk_of_files(&disk, &files);
    fuzz_files_end(&files);
    fuzz_calls_begin(&calls, &disk, 0);
    fuzz_calls_run(&calls, data, size);
    fuzz_calls_end(&calls);
    fuzz_disk_end(&disk);
    return 1;
}

static void fuzz_both_seed(struct fuzz_seeds *seeds)
{
    uint64_t chance = 1;
    for (uint8_t base = 0; base < 32; base++) {
        uint8_t front[2 + 2 * FUZZ_DAMAGE_BYTES] = {base, 2};
        for (size_t i = 2; i < sizeof front; i++)
            front[i] = (uint8_t)fuzz_next(&chance);
        if ((base & 7) < FUZZ_BASES)
            fuzz_calls_seed(seeds, front, sizeof front);
    }
}

FUZZ_TARGET(both, fuzz_mutate_bytes)

#undef FUZZ_DAMAGE_BYTES
