/* error.c: the thread's last error, and the names of codes.
 *
 * The sentence lives in a thread-local buffer, so that setting it needs no memory (the commonest
 * moment to fail is when there is none left), no lock, and no handle: a failed open has none.
 *
 * Invariant: the buffer always holds a terminated text, and never a cut-off UTF-8 character (names
 * and paths of the user are quoted in it, and bindings decode it strictly).
 *
 * That an id is not there is an answer more often than a failure, and formatting it takes four
 * times as long as finding it out: of that sentence only the facts are kept, until somebody asks
 * for it.
 *
 * Rejected: a text kept in each handle (two threads on one handle would overwrite each other's),
 * and an allocated text (it needs a release call, and fails when it is needed most). */
#include "error.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char error_buffer[ERROR_TEXT_BYTES];

/* The facts of a sentence that is not in the buffer yet. */
static _Thread_local struct {
    int is_due;
    uint64_t id;
    char collection[ERROR_NAME_BYTES];
} error_missing;

/* Drops the last character if the cut at the end of the buffer went through it. */
static void error_trim(char *text, size_t length)
{
    size_t start = length;
    assert(length > 4);
    while (length - start < 4 && ((unsigned char)text[start - 1] & 0xC0) == 0x80)
        start--;
    if ((unsigned char)text[start - 1] < 0xC0)
        return;
    const unsigned char lead = (unsigned char)text[start - 1];
    const size_t wanted = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
    if (length - start < wanted)
        text[start - 1] = '\0';
}

/* Formats aside first: an argument may be the present sentence. */
static void error_format(char *text, const char *format, va_list arguments)
{
    const int length = vsnprintf(text, ERROR_TEXT_BYTES, format, arguments);
    if (length < 0)
        text[0] = '\0';
    else if (length >= ERROR_TEXT_BYTES)
        error_trim(text, ERROR_TEXT_BYTES - 1);
}

OMENDB_INTERNAL int error_adopt(int code, const char *text)
{
    char copy[ERROR_TEXT_BYTES];
    size_t length = strlen(text);
    const int cut = length >= ERROR_TEXT_BYTES;
    if (cut)
        length = ERROR_TEXT_BYTES - 1;
    memcpy(copy, text, length);
    copy[length] = '\0';
    if (cut)
        error_trim(copy, length);
    memcpy(error_buffer, copy, length + 1);
    error_missing.is_due = 0;
    return code;
}

OMENDB_INTERNAL int error_set(int code, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    error_format(text, format, arguments);
    va_end(arguments);
    return error_adopt(code, text);
}

/* glibc and Android return the text, POSIX a status. */
static const char *error_reason(int system_error, char *buffer, size_t size)
{
#if (defined(__GLIBC__) || defined(__ANDROID__)) && defined(_GNU_SOURCE)
    return strerror_r(system_error, buffer, size);
#else
    return strerror_r(system_error, buffer, size) == 0 ? buffer : "unknown reason";
#endif
}

OMENDB_INTERNAL int error_set_system(int code, int system_error, const char *format, ...)
{
    char text[ERROR_TEXT_BYTES], reason[128];
    va_list arguments;
    va_start(arguments, format);
    error_format(text, format, arguments);
    va_end(arguments);
    if (system_error == 0)
        return error_adopt(code, text);
    return error_set(code, "%s: %s", text, error_reason(system_error, reason, sizeof reason));
}

OMENDB_INTERNAL int error_set_missing(const char *collection, uint64_t id)
{
    size_t length = strlen(collection);
    assert(length < ERROR_NAME_BYTES);
    memcpy(error_missing.collection, collection, length + 1);
    error_missing.id = id;
    error_missing.is_due = 1;
    return OMENDB_NOTFOUND;
}

OMENDB_INTERNAL const char *error_text(void)
{
    if (error_missing.is_due)
        error_set(OMENDB_NOTFOUND, "id %llu is not in collection \"%s\"",
                  (unsigned long long)error_missing.id, error_missing.collection);
    return error_buffer;
}

OMENDB_API const char *omendb_errmsg(void)
{
    return error_text();
}

OMENDB_API const char *omendb_strerror(int code)
{
    static const char *const names[] = {
        [OMENDB_OK] = "ok",
        [OMENDB_INVALID] = "invalid",
        [OMENDB_NOTFOUND] = "not found",
        [OMENDB_EXISTS] = "exists",
        [OMENDB_MISMATCH] = "mismatch",
        [OMENDB_BUSY] = "busy",
        [OMENDB_CONFLICT] = "conflict",
        [OMENDB_READONLY] = "read-only",
        [OMENDB_MISUSE] = "misuse",
        [OMENDB_NOMEM] = "no memory",
        [OMENDB_FULL] = "full",
        [OMENDB_IOERR] = "i/o error",
        [OMENDB_PERMISSION] = "no permission",
        [OMENDB_CORRUPT] = "corrupt",
        [OMENDB_FORMAT] = "unknown format",
        [OMENDB_POISONED] = "poisoned",
        [OMENDB_DROPPED] = "dropped",
        [OMENDB_TOOBIG] = "too big",
        [OMENDB_UNSUPPORTED] = "unsupported",
        [OMENDB_DONE] = "done",
        [OMENDB_TIMEOUT] = "timed out",
        [OMENDB_QUOTA] = "quota",
    };
    if (code < 0 || (size_t)code >= sizeof names / sizeof names[0])
        return "unknown code";
    return names[code];
}
