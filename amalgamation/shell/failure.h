/* failure.h: what went wrong, for the whole shell; allocation that reports through it. */
#ifndef OMENDB_SHELL_FAILURE_H
#define OMENDB_SHELL_FAILURE_H

#include <stddef.h>

#include "omendb.h"

/* Code of a failure that is the caller's command line; exit status 2. Others are omendb_code. */
#define FAILURE_USAGE (-1)

struct failure {
    int code; /* OMENDB_OK: none */
    char message[1200];
};

#if defined(__GNUC__)
#define FAILURE_FORMAT(text, first) __attribute__((format(printf, text, first)))
#else
#define FAILURE_FORMAT(text, first)
#endif

/* Stores code and sentence, unless one is stored already: the first failure is the cause.
 * Returns: `code`, so that a caller can return it on. */
int failure_set(struct failure *failure, int code, const char *format, ...) FAILURE_FORMAT(3, 4);

/* Forgets the failure, for a caller that goes on in another way. */
void failure_clear(struct failure *failure);

/* Puts the text in front of the stored sentence, or behind it. A message that grows too long loses
 * its end. */
void failure_prefix(struct failure *failure, const char *format, ...) FAILURE_FORMAT(2, 3);
void failure_suffix(struct failure *failure, const char *format, ...) FAILURE_FORMAT(2, 3);

/* Memory for `count` things of `size` bytes, zeroed; NULL sets the failure (OMENDB_NOMEM). */
void *failure_allocate(struct failure *failure, size_t count, size_t size);

/* Resizes memory of failure_allocate or NULL. On NULL the failure is set and `memory` is kept. */
void *failure_resize(struct failure *failure, void *memory, size_t count, size_t size);

void failure_release(void *memory);

#endif
