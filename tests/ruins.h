/* ruins.h: a small database of everything that can be damaged, for the tests of salvage. Included
 * after internals.h. */
#ifndef OMENDB_TEST_RUINS_H
#define OMENDB_TEST_RUINS_H

#include "crash_vfs.h"
#include "signing.h"
#include "support.h"

#define RUINS_DIM 2

static inline void ruins_must(int status)
{
    support_must(status);
}

static inline void ruins_options(struct crash_fs *fs, omendb_options *options)
{
    omendb_options_init(options);
    options->vfs = &fs->vfs;
    options->threads = 0;
    options->wal_limit = 24 * 1024; /* little to copy */
}

static inline void ruins_put(omendb_collection *collection, uint64_t first, uint64_t count,
                             uint64_t factor)
{
    for (uint64_t i = 0; i < count; i++)
        support_must(support_put(collection, NULL, first + i * factor % count, 100 + i, RUINS_DIM));
}

static inline void ruins_prepare_one(omendb *db, omendb_collection *collection, const char *name,
                                     uint64_t id)
{
    omendb_txn *txn = NULL;
    support_must(omendb_txn_begin(db, OMENDB_READ_WRITE, &txn));
    support_must(support_put(collection, txn, id, id, RUINS_DIM));
    support_must(omendb_delete(collection, txn, id + 1));
    support_must(omendb_update(collection, txn, id + 2, "{\"n\":2}"));
    support_must(omendb_txn_prepare(txn, name));
}

/* Two segments, an overlay, a log of a process that died, with all kinds of changes; the ids of
 * "loose" do not ascend. "plain" and "loose" are the two parts of the first segment, "plain" has
 * the second one alone, "late" is in the log only. */
static inline struct crash_fs *ruins_of_all(void)
{
    struct crash_fs *fs = crash_fs_create(0);
    omendb_options options;
    omendb *db = NULL;
    omendb_collection *plain = NULL, *loose = NULL, *late = NULL;
    omendb_schema schema = OMENDB_SCHEMA_INIT;
    schema.dim = RUINS_DIM;
    schema.M = 2;
    schema.ef_construction = 8;
    ruins_options(fs, &options);
    support_must(omendb_open("/db", &options, &db));
    support_must(omendb_collection_create(db, "plain", &schema, &plain));
    support_must(omendb_collection_create(db, "loose", &schema, &loose));
    ruins_put(plain, 0, 40, 1);
    ruins_put(loose, 0, 40, 7);
    support_must(omendb_checkpoint(db));
    ruins_put(plain, 30, 20, 1);
    support_must(omendb_delete(plain, NULL, 3));
    support_must(omendb_delete(loose, NULL, 4));
    for (uint64_t id = 0; id < 30; id += 5)
        support_must(omendb_update(plain, NULL, id, "{\"n\":1}"));
    support_must(omendb_checkpoint(db));
    support_must(omendb_collection_create(db, "late", &schema, &late));
    ruins_put(late, 0, 10, 1);
    ruins_put(plain, 10, 4, 1);
    ruins_prepare_one(db, plain, "waits", 20);
    ruins_prepare_one(db, plain, "done", 24);
    support_must(omendb_commit_prepared(db, "done"));
    support_must(omendb_delete(late, NULL, 5));
    omendb_collection_close(late);
    support_must(omendb_collection_create(db, "gone", &schema, &late));
    omendb_collection_close(late);
    support_must(omendb_collection_drop(db, "gone"));
    struct crash_fs *copy = crash_fs_copy(fs);
    omendb_collection_close(plain);
    omendb_collection_close(loose);
    support_must(omendb_close(db));
    crash_fs_destroy(fs);
    return copy;
}

static inline struct crash_inode *ruins_file(struct crash_fs *fs, const char *prefix)
{
    struct crash_inode *file = signed_file(fs, prefix, 0);
    if (file == NULL)
        support_must(OMENDB_NOTFOUND);
    return file;
}

#endif
