/* test_fuzz_corpus.c: the committed corpus of each fuzz target (tests/corpus/<target>: what once
 * failed, and a few seeds), and the seeds that it makes of real databases, run once more, in every
 * build of the suite. */
#include "internals.h"

#define FUZZ_COLLECTED 1
#include "fuzz_both.c"
#include "fuzz_directory.c"
#include "fuzz_filter.c"
#include "fuzz_log.c"
#include "fuzz_manifest.c"
#include "fuzz_metadata.c"
#include "fuzz_operations.c"
#include "fuzz_segment.c"

#include "test.h"

/* Something was replayed, and what real databases are made of was accepted. */
static void corpus_replay(const struct fuzz_target *target, size_t least)
{
    char path[256];
    struct fuzz_seeds seeds = {NULL, target->run, 0};
    snprintf(path, sizeof path, "tests/corpus/%s", target->name);
    CHECK(fuzz_replay(target, path) > 0);
    target->seed(&seeds);
    CHECK(seeds.count >= least);
}

TEST(manifests)
{
    corpus_replay(&fuzz_target_manifest, 21);
}

TEST(logs)
{
    corpus_replay(&fuzz_target_log, 28);
}

TEST(segments)
{
    corpus_replay(&fuzz_target_segment, 12);
}

TEST(directories)
{
    corpus_replay(&fuzz_target_directory, 20);
}

TEST(operations)
{
    corpus_replay(&fuzz_target_operations, 4);
}

TEST(damage_and_operations)
{
    corpus_replay(&fuzz_target_both, 80);
}

TEST(filters)
{
    corpus_replay(&fuzz_target_filter, 9);
}

TEST(metadata)
{
    corpus_replay(&fuzz_target_metadata, 12);
}

TEST_MAIN(manifests, logs, segments, directories, operations, damage_and_operations, filters,
          metadata)
