/* failure.c: one failure travels from where it happened to main(), which prints it once.
 *
 * Invariant: the first failure stays. What fails later, while cleaning up, is mostly a consequence
 * and would hide the cause. Callers on the way out may add where it happened (a prefix: the file
 * and row) and what to do about it (a suffix).
 *
 * The message has a fixed size so that running out of memory can be reported too; names from the
 * command line that are longer than a screen are cut.
 *
 * Memory of the shell comes from here, and every size of an array is given as count and size, so
 * that a product which overflows is an ordinary failure wherever it comes from. */
#include "failure.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int failure_set(struct failure *failure, int code, const char *format, ...)
{
    va_list arguments;

    if (failure->code == OMENDB_OK) {
        failure->code = code;
        va_start(arguments, format);
        vsnprintf(failure->message, sizeof failure->message, format, arguments);
        va_end(arguments);
    }
    return code;
}

void failure_clear(struct failure *failure)
{
    failure->code = OMENDB_OK;
    failure->message[0] = '\0';
}

void failure_prefix(struct failure *failure, const char *format, ...)
{
    char old[sizeof failure->message];
    va_list arguments;
    size_t length;

    memcpy(old, failure->message, sizeof old);
    va_start(arguments, format);
    vsnprintf(failure->message, sizeof failure->message, format, arguments);
    va_end(arguments);
    length = strlen(failure->message);
    snprintf(failure->message + length, sizeof failure->message - length, "%s", old);
}

void failure_suffix(struct failure *failure, const char *format, ...)
{
    const size_t length = strlen(failure->message);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(failure->message + length, sizeof failure->message - length, format, arguments);
    va_end(arguments);
}

void *failure_resize(struct failure *failure, void *memory, size_t count, size_t size)
{
    void *resized = NULL;

    if (size != 0 && count <= SIZE_MAX / 2 / size) {
        resized = realloc(memory, count * size != 0 ? count * size : 1);
    }
    if (resized == NULL) {
        failure_set(failure, OMENDB_NOMEM, "no memory for %zu times %zu bytes", count, size);
    }
    return resized;
}

void *failure_allocate(struct failure *failure, size_t count, size_t size)
{
    void *memory = failure_resize(failure, NULL, count, size);

    if (memory != NULL) {
        memset(memory, 0, count * size);
    }
    return memory;
}

void failure_release(void *memory)
{
    free(memory);
}
