/* ids_core.h: the bare model of ids behind a plain C interface, as bench_ids.cpp is C++ (for the
 * B-tree) and the model is C11 inside omendb.c. */
#ifndef IDS_CORE_H
#define IDS_CORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct ids_core;

/* Of ascending ids, which are kept by the caller, at least 1,024; ends the program without memory.
 */
struct ids_core *ids_core_build(const uint64_t *ids, uint32_t count);
void ids_core_free(struct ids_core *core);
uint32_t ids_core_pieces(const struct ids_core *core);
size_t ids_core_bytes(const struct ids_core *core);
/* The sum of the places of those of the wanted ids that are there, one by one or 32 at a time. */
uint64_t ids_core_find(const struct ids_core *core, const uint64_t *wanted, size_t count);
uint64_t ids_core_find_batch(const struct ids_core *core, const uint64_t *wanted, size_t count);

#ifdef __cplusplus
}
#endif

#endif
