/* fuzz_manifest.c: the bytes of CURRENT and of a manifest. What manifest_read accepts must be what
 * manifest_write would write, and be read again as the same. */
#include "fuzz.h"
#include "fuzz_database.h"

static void fuzz_manifest_storage(struct fuzz_disk *disk, struct memory *memory,
                                  struct storage *storage)
{
    memset(storage, 0, sizeof *storage);
    memory_init(memory, &fuzz_allocator, 0);
    storage->vfs = &disk->vfs;
    storage->directory = disk;
    storage->memory = memory;
}

static void fuzz_manifest_write_again(const struct manifest *manifest)
{
    struct fuzz_disk disk;
    struct memory memory;
    struct storage storage;
    struct manifest again;
    fuzz_disk_begin(&disk);
    fuzz_manifest_storage(&disk, &memory, &storage);
    FUZZ_CHECK(manifest_write(&storage, manifest) == OMENDB_OK);
    FUZZ_CHECK(manifest_read(&storage, &again) == OMENDB_OK);
    FUZZ_CHECK(again.number == manifest->number && again.commit == manifest->commit &&
               again.file_count == manifest->file_count &&
               again.collection_count == manifest->collection_count);
    for (uint32_t i = 0; i < again.collection_count; i++)
        FUZZ_CHECK(strcmp(again.collections[i].name, manifest->collections[i].name) == 0 &&
                   again.collections[i].segment_count == manifest->collections[i].segment_count);
    manifest_destroy(&memory, &again);
    FUZZ_CHECK(memory.used == 0);
    fuzz_disk_end(&disk);
}

static int fuzz_manifest_run(const uint8_t *data, size_t size)
{
    struct fuzz_files files;
    struct fuzz_disk disk;
    struct memory memory;
    struct storage storage;
    struct manifest manifest;
    fuzz_unpack(data, size, &files);
    fuzz_disk_of_files(&disk, &files);
    fuzz_files_end(&files);
    fuzz_manifest_storage(&disk, &memory, &storage);
    int code = fuzz_sane(manifest_read(&storage, &manifest));
    if (code == OMENDB_OK)
        fuzz_manifest_write_again(&manifest);
    manifest_destroy(&memory, &manifest);
    FUZZ_CHECK(memory.used == 0);
    fuzz_disk_end(&disk);
    return code == OMENDB_OK;
}

/* A manifest whose first collection has a curve. */
static void fuzz_manifest_seed_curve(struct fuzz_seeds *seeds)
{
    struct fuzz_disk disk;
    struct memory memory;
    struct storage storage;
    struct manifest manifest;
    struct fuzz_files files;
    fuzz_disk_copy(&disk, fuzz_base(0));
    fuzz_manifest_storage(&disk, &memory, &storage);
    fuzz_must(manifest_read(&storage, &manifest));
    struct calibration *curve = memory_zalloc(&memory, sizeof *curve);
    *curve = (struct calibration){.rows = 4000, .queries = 200, .all_rows = 4000, .count = 3};
    curve->entries[0] = (struct calibration_entry){10, 10, 0.0f, 0.9f, 0.88f, 100};
    curve->entries[1] = (struct calibration_entry){10, 20, 0.0f, 0.95f, 0.94f, 200};
    curve->entries[2] = (struct calibration_entry){10, 200, 1.2f, 0.97f, 0.96f, 300};
    manifest.collections[0].calibration = curve;
    manifest.number = 99;
    manifest.next_file = 100;
    fuzz_must(manifest_write(&storage, &manifest));
    manifest_destroy(&memory, &manifest);
    fuzz_files_of_disk(&files, &disk, 1u << FUZZ_CURRENT | 1u << FUZZ_MANIFEST);
    fuzz_add_seed_of_files(seeds, &files);
    fuzz_files_end(&files);
    fuzz_disk_end(&disk);
}

static void fuzz_manifest_seed(struct fuzz_seeds *seeds)
{
    fuzz_seed_bases(seeds, 1u << FUZZ_CURRENT | 1u << FUZZ_MANIFEST, 0);
    fuzz_manifest_seed_curve(seeds);
}

FUZZ_TARGET(manifest, fuzz_mutate_files)
