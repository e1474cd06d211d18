/* fuzz_operations.c: bytes as a sequence of calls over one database, beside a model that knows what
 * was committed. Nothing fails below, so every call must answer as the model does.
 *
 * Eight bytes an operation: what, which collection, id, count or mode, four for a value. */
#include "fuzz.h"
#include "fuzz_database.h"
#include "fuzz_calls.h"

static int fuzz_operations_run(const uint8_t *data, size_t size)
{
    struct fuzz_calls calls;
    struct fuzz_disk disk;
    fuzz_disk_begin(&disk);
    fuzz_calls_begin(&calls, &disk, 1);
    fuzz_calls_run(&calls, data, size);
    fuzz_calls_end(&calls);
    fuzz_disk_end(&disk);
    return 1;
}

/* Programs in words, and random ones. */
static void fuzz_operations_seed(struct fuzz_seeds *seeds)
{
    fuzz_calls_seed(seeds, NULL, 0);
}

FUZZ_TARGET(operations, fuzz_mutate_bytes)
