/* fuzz_segment.c: the bytes of segments and overlays. Each is opened as a file alone; then a
 * manifest is made that names them, as their footers say what they are, and the database is opened,
 * searched, walked and checked.
 *
 * Choice: bit 0 maps the files, bit 1 opens for writing, all of bits 2 to 4 then merge, bit 5
 * checks before it asks. */
#include "fuzz.h"
#include "fuzz_database.h"

#define FUZZ_PARTS 8

static void fuzz_segment_storage(struct fuzz_disk *disk, struct memory *memory, uint32_t io,
                                 struct storage *storage)
{
    memset(storage, 0, sizeof *storage);
    memory_init(memory, &fuzz_allocator, 0);
    storage->vfs = &disk->vfs;
    storage->directory = disk;
    storage->memory = memory;
    storage->io = io;
}

static void fuzz_segment_ignore(void *context, uint64_t block, const char *sentence)
{
    (void)context;
    (void)block;
    (void)sentence;
}

/* Every section that the file shows is readable as soon as it is verified. */
static void fuzz_segment_touch(struct segment_file *file)
{
    uint8_t sum = 0;
    for (uint32_t part = 0; part < file->part_count; part++) {
        for (int type = 1; type < SECTION_TYPES; type++) {
            struct section_range range = segment_section(file, part, (enum section_type)type);
            if (range.length == 0 ||
                blocks_touch(&file->blocks, range.offset, range.length) != OMENDB_OK)
                continue;
            for (uint64_t i = 0; i < range.length; i += 61)
                sum = (uint8_t)(sum + file->blocks.base[range.offset + i]);
            sum = (uint8_t)(sum + file->blocks.base[range.offset + range.length - 1]);
        }
    }
    FUZZ_CHECK(fuzz_sane(segment_file_check(file, fuzz_segment_ignore, &sum)) == OMENDB_OK);
}

static int fuzz_segment_open(struct storage *storage, const struct fuzz_file *file,
                             struct segment_file **opened)
{
    enum storage_kind kind = file->kind == FUZZ_OVERLAY ? STORAGE_OVERLAY : STORAGE_SEGMENT;
    return fuzz_sane(
        segment_file_open(storage, kind, file->number, file->size, fuzz_footer_crc(file), opened));
}

/* The manifest that the footers ask for. */
struct fuzz_segment_plan {
    struct manifest manifest;
    struct manifest_file files[FUZZ_FILES];
    struct manifest_collection collections[FUZZ_PARTS];
    struct manifest_segment segments[FUZZ_PARTS];
};

static void fuzz_segment_plan_file(struct fuzz_segment_plan *plan, const struct fuzz_file *file)
{
    plan->files[plan->manifest.file_count++] = (struct manifest_file){
        .number = file->number,
        .size = file->size,
        .footer_crc = fuzz_footer_crc(file),
        .kind = file->kind == FUZZ_OVERLAY ? STORAGE_OVERLAY : STORAGE_SEGMENT};
}

/* One collection a part, which then fits it. */
static void fuzz_segment_plan_part(struct fuzz_segment_plan *plan, const struct segment_file *file,
                                   uint32_t part)
{
    const struct part_info *info = &file->parts[part];
    if (plan->manifest.collection_count == FUZZ_PARTS || info->dim == 0 || info->dim > 65535 ||
        info->metric > OMENDB_HAMMING || info->scalar > OMENDB_B1 || info->M < 2 || info->M > 256 ||
        (info->scalar == OMENDB_B1) != (info->metric == OMENDB_HAMMING) ||
        info->collection >= UINT64_MAX - 1)
        return;
    for (uint32_t i = 0; i < plan->manifest.collection_count; i++)
        if (plan->collections[i].id == info->collection)
            return;
    uint32_t index = plan->manifest.collection_count++;
    struct manifest_collection *collection = &plan->collections[index];
    plan->segments[index] = (struct manifest_segment){.file = file->number, .part = part};
    collection->id = info->collection;
    collection->next_id = 1000;
    snprintf(collection->name, sizeof collection->name, "%u", index);
    collection->schema = (omendb_schema)OMENDB_SCHEMA_INIT;
    collection->schema.dim = info->dim;
    collection->schema.metric = info->metric;
    collection->schema.scalar = info->scalar;
    collection->schema.scale = 1.0f;
    collection->schema.M = info->M;
    collection->schema.ef_construction = 8;
    collection->schema.ef = 4;
    collection->segment_count = 1;
    collection->segments = &plan->segments[index];
    if (info->collection >= plan->manifest.next_collection)
        plan->manifest.next_collection = info->collection + 1;
}

/* Tombstones go to the segment that they name. */
static void fuzz_segment_plan_overlay(struct fuzz_segment_plan *plan,
                                      const struct segment_file *file, uint32_t part)
{
    const struct part_info *info = &file->parts[part];
    for (uint32_t i = 0; i < plan->manifest.collection_count; i++) {
        struct manifest_segment *segment = &plan->segments[i];
        if (segment->overlay_file == 0 && segment->file == info->target_file &&
            segment->part == info->target_part) {
            segment->overlay_file = file->number;
            segment->overlay_part = part;
            return;
        }
    }
}

static void fuzz_segment_plan_all(struct fuzz_segment_plan *plan, struct storage *storage,
                                  const struct fuzz_files *files, enum fuzz_kind kind)
{
    for (size_t i = 0; i < files->count; i++) {
        struct segment_file *file = NULL;
        if (files->file[i].kind != kind ||
            fuzz_segment_open(storage, &files->file[i], &file) != OMENDB_OK)
            continue;
        fuzz_segment_touch(file);
        fuzz_segment_plan_file(plan, &files->file[i]);
        for (uint32_t part = 0; part < file->part_count; part++) {
            if (kind == FUZZ_OVERLAY)
                fuzz_segment_plan_overlay(plan, file, part);
            else
                fuzz_segment_plan_part(plan, file, part);
        }
        segment_file_close(file);
    }
}

static int fuzz_segment_use(struct fuzz_disk *disk, uint8_t choice)
{
    omendb *db = NULL;
    int may_write = (choice & 2) != 0;
    int code =
        fuzz_sane(fuzz_open(disk, choice & 1 ? OMENDB_IO_MAP : OMENDB_IO_PREAD, !may_write, &db));
    if (code != OMENDB_OK)
        return code;
    /* Where all blocks are verified, nothing but bounds is between a number and what it leads to.
     */
    if ((choice & 32) != 0)
        fuzz_check_database(db);
    fuzz_ask(db, may_write);
    if ((choice & 32) == 0)
        fuzz_check_database(db);
    if (may_write && (choice >> 2 & 7) == 7)
        fuzz_sane(omendb_optimize(db, NULL, NULL));
    fuzz_sane(omendb_close(db));
    return code;
}

static int fuzz_segment_run(const uint8_t *data, size_t size)
{
    struct fuzz_files files;
    struct fuzz_disk disk;
    struct memory memory;
    struct storage storage;
    struct fuzz_segment_plan plan;
    int code = OMENDB_NOTFOUND;
    fuzz_unpack(data, size, &files);
    fuzz_disk_of_files(&disk, &files);
    fuzz_segment_storage(&disk, &memory, files.choice & 1 ? OMENDB_IO_MAP : OMENDB_IO_PREAD,
                         &storage);
    memset(&plan, 0, sizeof plan);
    plan.manifest = (struct manifest){.number = 300, .commit = 50, .next_file = 301};
    plan.manifest.files = plan.files;
    plan.manifest.collections = plan.collections;
    fuzz_segment_plan_all(&plan, &storage, &files, FUZZ_SEGMENT);
    fuzz_segment_plan_all(&plan, &storage, &files, FUZZ_OVERLAY);
    fuzz_files_end(&files);
    if (plan.manifest.collection_count != 0 && fuzz_find(&disk, "CURRENT") == NULL &&
        manifest_write(&storage, &plan.manifest) == OMENDB_OK)
        code = fuzz_segment_use(&disk, files.choice);
    FUZZ_CHECK(memory.used == 0);
    fuzz_disk_end(&disk);
    return code == OMENDB_OK;
}

static void fuzz_segment_seed(struct fuzz_seeds *seeds)
{
    fuzz_seed_bases(seeds, 1u << FUZZ_SEGMENT | 1u << FUZZ_OVERLAY, 0);
}

FUZZ_TARGET(segment, fuzz_mutate_files)

#undef FUZZ_PARTS
