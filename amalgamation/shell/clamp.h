/* clamp.h: values that a collection of i8 or u8 cannot hold. */
#ifndef OMENDB_SHELL_CLAMP_H
#define OMENDB_SHELL_CLAMP_H

#include "session.h"

/* Counts the elements of `values` that are stored as another value because they lie outside of the
 * range of the collection's type.
 *
 * vector_type: omendb_scalar of `values`, `count` elements. */
uint64_t clamp_count(const omendb_schema *schema, int vector_type, const void *values,
                     size_t count);

/* Warns on the standard error, unless `clamped` is 0 or the output is JSON, which has the number.
 *
 * total: elements stored, of which `clamped` were changed. */
void clamp_warn(const struct session *session, uint64_t clamped, uint64_t total);

#endif
