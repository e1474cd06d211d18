/* error.h: the thread's last error. A function that fails sets the sentence where the facts are
 * known and returns the code; callers above pass the code on without touching the sentence. */
#ifndef OMENDB_ERROR_H
#define OMENDB_ERROR_H

#include "internal.h"

#if defined(__GNUC__) || defined(__clang__)
#define OMENDB_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define OMENDB_PRINTF(format_index, first)
#endif

/* A sentence with its NUL fits this. */
#define ERROR_TEXT_BYTES 512

/* A name of a collection with its NUL fits this. */
#define ERROR_NAME_BYTES 256

/* How sentences about damaged files end. */
#define ERROR_RESTORE "restore from a backup, or save what is intact with omendb_salvage"

/* Formats the sentence (cut at 511 bytes) and returns `code`. */
OMENDB_INTERNAL int error_set(int code, const char *format, ...) OMENDB_PRINTF(2, 3);

/* As error_set, with ": <reason of errno>" added when `system_error` is not 0. */
OMENDB_INTERNAL int error_set_system(int code, int system_error, const char *format, ...)
    OMENDB_PRINTF(3, 4);

/* Says that no record of the collection has the id, and returns OMENDB_NOTFOUND. Cheap: the
 * sentence is formatted when it is asked for.
 *
 * collection: its name, of less than ERROR_NAME_BYTES; copied. */
OMENDB_INTERNAL int error_set_missing(const char *collection, uint64_t id);

/* The sentence of this thread. */
OMENDB_INTERNAL const char *error_text(void);

/* Puts a sentence that another thread got (a group's leader, a background step) in this thread's
 * place; returns `code`. */
OMENDB_INTERNAL int error_adopt(int code, const char *text);

#endif
