/* fuzz_directory.c: a whole directory: opened in either mode, read, checked, written to, closed,
 * and opened again.
 *
 * Choice: bit 0 maps the files, bit 1 opens for writing, all of bits 2 to 4 then merge, bit 5
 * checks before it asks. What a database that was opened for writing leaves behind must open again.
 */
#include "fuzz.h"
#include "fuzz_database.h"

static int fuzz_directory_open(struct fuzz_disk *disk, uint8_t choice, uint32_t read_only)
{
    omendb *db = NULL;
    int code =
        fuzz_sane(fuzz_open(disk, choice & 1 ? OMENDB_IO_MAP : OMENDB_IO_PREAD, read_only, &db));
    if (code != OMENDB_OK)
        return code;
    if ((choice & 32) != 0)
        fuzz_check_database(db);
    fuzz_ask(db, !read_only);
    if ((choice & 32) == 0)
        fuzz_check_database(db);
    if (read_only)
        fuzz_sane(omendb_refresh(db));
    else
        fuzz_sane(omendb_checkpoint(db));
    if (!read_only && (choice >> 2 & 7) == 7)
        fuzz_sane(omendb_optimize(db, NULL, NULL));
    return fuzz_sane(omendb_close(db));
}

static int fuzz_directory_run(const uint8_t *data, size_t size)
{
    struct fuzz_files files;
    struct fuzz_disk disk;
    fuzz_unpack(data, size, &files);
    fuzz_disk_of_files(&disk, &files);
    fuzz_files_end(&files);
    int code = fuzz_directory_open(&disk, files.choice, 1);
    if ((files.choice & 2) != 0) {
        code = fuzz_directory_open(&disk, files.choice, 0);
        if (code == OMENDB_OK)
            FUZZ_CHECK(fuzz_directory_open(&disk, files.choice, 1) == OMENDB_OK);
    }
    fuzz_disk_end(&disk);
    return code == OMENDB_OK;
}

static void fuzz_directory_seed(struct fuzz_seeds *seeds)
{
    fuzz_seed_bases(seeds, (1u << FUZZ_LOCK) - 1, 0);
}

FUZZ_TARGET(directory, fuzz_mutate_files)
