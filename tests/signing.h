/* signing.h: makes the checksums of a database in crash_vfs.h right again after a test has changed
 * bytes of it, so that what the bytes say is believed. Included after internals.h. */
#ifndef OMENDB_TEST_SIGNING_H
#define OMENDB_TEST_SIGNING_H

#include "crash_vfs.h"

/* The newest file of that kind, or the one whose number is given; NULL: none. */
static inline struct crash_inode *signed_file(struct crash_fs *fs, const char *prefix,
                                              uint64_t number)
{
    struct crash_inode *found = NULL;
    uint64_t best = 0;
    for (size_t i = 0; i < fs->directories[0].count; i++) {
        const struct crash_entry *entry = &fs->directories[0].entries[i];
        const size_t length = strlen(prefix);
        if (strncmp(entry->name, prefix, length) != 0)
            continue;
        const uint64_t own = strtoull(entry->name + length, NULL, 10);
        if ((number != 0 && own != number) || own < best)
            continue;
        best = own;
        found = &fs->inodes[entry->inode];
    }
    return found;
}

static inline void signed_manifest(struct crash_fs *fs)
{
    struct crash_inode *manifest = signed_file(fs, "MANIFEST-", 0);
    format_put32(manifest->data + FORMAT_MANIFEST_CRC,
                 checksum_crc32c(0, manifest->data + 64, (size_t)manifest->size - 64));
    storage_header_end(manifest->data);
}

/* The blocks, the footer, and the manifest's checksum of the footer. */
static inline void signed_segment(struct crash_fs *fs, struct crash_inode *file, uint64_t number)
{
    struct crash_inode *manifest = signed_file(fs, "MANIFEST-", 0);
    const uint64_t blocks = file->size / BLOCK_BYTES;
    uint8_t *footer = file->data + blocks * BLOCK_BYTES;
    const size_t length = (size_t)(file->size - blocks * BLOCK_BYTES);
    storage_header_end(file->data);
    for (uint64_t i = 0; i < blocks; i++)
        format_put32(footer + length - FORMAT_TRAILER_BYTES - (blocks - i) * 4,
                     blocks_checksum(number, i, file->data + i * BLOCK_BYTES));
    const uint32_t crc = segment_footer_checksum(number, footer, length);
    format_put32(footer + length - 4, crc);
    const uint32_t files = format_get32(manifest->data + FORMAT_MANIFEST_FILES);
    for (uint32_t i = 0; i < files; i++) {
        uint8_t *entry = manifest->data + FORMAT_MANIFEST_BYTES + (size_t)i * FORMAT_FILE_BYTES;
        if (format_get64(entry + FORMAT_FILE_NUMBER) == number)
            format_put32(entry + FORMAT_FILE_CRC, crc);
    }
    signed_manifest(fs);
}

static inline void signed_record(uint8_t *record)
{
    const size_t size =
        FORMAT_RECORD_BYTES +
        (size_t)format_align(format_get32(record + FORMAT_RECORD_LENGTH), FORMAT_RECORD_ALIGN);
    const uint32_t head = checksum_crc32c(0, record, 4);
    format_put32(record + FORMAT_RECORD_CRC, checksum_crc32c(head, record + 8, size - 8));
}

#endif
