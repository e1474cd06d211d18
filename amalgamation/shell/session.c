/* session.c: opening and closing what a command works on.
 *
 * Invariant: session_close releases children before the database whatever failed before, so that a
 * command may return at any point. The close of a database that was written to can fail (it writes
 * what is in memory), and that is a failure of the command.
 *
 * Commands that only look open the database read-only: they work while another process writes, on
 * read-only media, and can never change anything. --read-only is a promise of the user that a
 * command is one of them.
 *
 * The library says what went wrong; the shell adds what to type, where it knows. */
#define _POSIX_C_SOURCE 200809L

#include "session.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define SESSION_STALL_MS       3600000u /* a bulk import waits for the index rather than give up */
#define SESSION_REHEARSE_BYTES (UINT64_C(4) << 30) /* more than a batch can have */

static volatile sig_atomic_t session_interrupt;

static void session_on_interrupt(int number)
{
    (void)number;
    session_interrupt = 1;
}

/* The second interrupt ends the process at once: SA_RESETHAND gives the default back. */
void session_catch_interrupt(void)
{
    struct sigaction action;

    memset(&action, 0, sizeof action);
    action.sa_handler = session_on_interrupt;
    action.sa_flags = (int)SA_RESETHAND;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

bool session_interrupted(void)
{
    return session_interrupt != 0;
}

int session_result(struct session *session, int code)
{
    const char *message;

    if (code == OMENDB_OK) {
        return OMENDB_OK;
    }
    message = omendb_errmsg();
    return failure_set(&session->failure, code, "%s",
                       message[0] != '\0' ? message : omendb_strerror(code));
}

/* What the library says of a second writer is for programs; here it is what to type. */
static void session_explain_busy(struct session *session)
{
    failure_clear(&session->failure);
    failure_set(&session->failure, OMENDB_BUSY,
                "%s is open for writing in another program: wait for it, or close it there. "
                "Commands that only read work meanwhile: %s",
                session->arguments.database, ARGUMENTS_READERS);
}

int session_open(struct session *session, enum session_mode mode)
{
    const bool rehearsal = mode == SESSION_REHEARSE;
    const char *path = session->arguments.database;
    omendb_options options = OMENDB_OPTIONS_INIT;
    int code;

    options.read_only = mode == SESSION_READ;
    options.must_exist = mode == SESSION_READ || mode == SESSION_WRITE;
    options.stall_timeout_ms = SESSION_STALL_MS;
    if (rehearsal) { /* builds no graph, which would be thrown away */
        options.threads = 0;
        options.tail_limit = options.wal_limit = SESSION_REHEARSE_BYTES;
    }
    code =
        session_result(session, omendb_open(rehearsal ? ":memory:" : path, &options, &session->db));
    if (code == OMENDB_NOTFOUND && options.must_exist) {
        failure_suffix(&session->failure,
                       "; `omendb %s create COLLECTION --dim N` and `omendb %s import FILE` create "
                       "a database",
                       path, path);
    } else if (code == OMENDB_BUSY) {
        session_explain_busy(session);
    }
    return code;
}

int session_open_or_create(struct session *session, int (*rehearse)(void *context), void *context)
{
    int code = session_open(session, SESSION_WRITE);

    if (code != OMENDB_NOTFOUND) {
        return code;
    }
    failure_clear(&session->failure);
    code = session_open(session, SESSION_REHEARSE);
    if (code == OMENDB_OK) {
        code = rehearse(context);
    }
    if (code == OMENDB_OK) {
        code = session_close(session);
    }
    return code == OMENDB_OK ? session_open(session, SESSION_CREATE) : code;
}

/* Counts the collections and tells whether one is named "default"; the first is in `name`. */
static int session_look(struct session *session, size_t *count, bool *has_default)
{
    char name[256];
    int code;

    *has_default = false;
    for (*count = 0;; (*count)++) {
        code = omendb_collection_name(session->db, *count, name, sizeof name);
        if (code != OMENDB_OK) {
            return code == OMENDB_DONE ? OMENDB_OK : session_result(session, code);
        }
        if (*count == 0) {
            memcpy(session->name, name, sizeof name);
        }
        *has_default = *has_default || strcmp(name, "default") == 0;
    }
}

static int session_refuse_choice(struct session *session, size_t count)
{
    char name[256];
    size_t i;

    failure_set(&session->failure, OMENDB_NOTFOUND,
                "there are %zu collections; add --collection with one of", count);
    for (i = 0; i < 8 && omendb_collection_name(session->db, i, name, sizeof name) == OMENDB_OK;
         i++) {
        failure_suffix(&session->failure, "%s %s", i == 0 ? ":" : ",", name);
    }
    failure_suffix(&session->failure, "%s", count > i ? ", ..." : "");
    return OMENDB_NOTFOUND;
}

int session_choose_collection(struct session *session, bool creating)
{
    const char *given = session->arguments.collection;
    bool has_default = false;
    size_t count = 0;
    int code;

    if (given != NULL) {
        if (strlen(given) >= sizeof session->name) {
            return failure_set(&session->failure, OMENDB_INVALID,
                               "--collection: a name has at most 255 bytes");
        }
        strcpy(session->name, given);
        return OMENDB_OK;
    }
    code = session_look(session, &count, &has_default);
    if (code != OMENDB_OK || count == 1) {
        return code;
    }
    if (count > 1 && !has_default) {
        return session_refuse_choice(session, count);
    }
    if (count == 0 && !creating) {
        return failure_set(&session->failure, OMENDB_NOTFOUND,
                           "%s has no collections; `omendb %s create COLLECTION --dim N` and "
                           "`omendb %s import FILE` make one",
                           session->arguments.database, session->arguments.database,
                           session->arguments.database);
    }
    strcpy(session->name, "default");
    return OMENDB_OK;
}

int session_open_collection(struct session *session)
{
    int code = session_choose_collection(session, false);

    if (code == OMENDB_OK) {
        code = session_result(session, omendb_collection_open(session->db, session->name, NULL,
                                                              &session->collection));
        if (code == OMENDB_NOTFOUND) {
            failure_suffix(&session->failure, "; `omendb %s collections` lists them",
                           session->arguments.database);
        }
    }
    if (code == OMENDB_OK) {
        omendb_schema_init(&session->schema);
        code = session_result(session,
                              omendb_collection_schema(session->collection, &session->schema));
    }
    return code;
}

/* A number as JSON has them: an integer where it is one that fits. */
static int session_bind_number(struct session *session, int index, const char *text)
{
    char *end;
    long long whole;

    errno = 0;
    whole = strtoll(text, &end, 10);
    if (*end == '\0' && errno == 0) {
        return omendb_filter_bind_i64(session->filter, index, whole);
    }
    errno = 0;
    if (*text != '-' && text[strcspn(text, ".eE")] == '\0') {
        const unsigned long long large = strtoull(text, &end, 10);

        if (errno == 0) {
            return omendb_filter_bind_u64(session->filter, index, large);
        }
    }
    return omendb_filter_bind_f64(session->filter, index, strtod(text, NULL));
}

static int session_bind_quoted(struct session *session, int index, const struct json *json)
{
    char *text = failure_allocate(&session->failure, json->length + 1, 1);
    int code;

    if (text == NULL) {
        return session->failure.code;
    }
    json_decode(json, text);
    code = session_result(session, omendb_filter_bind_text(session->filter, index, text));
    failure_release(text);
    return code;
}

/* What is a number, true, false, null or "a text" of JSON is that; all else a text as it stands. */
static int session_bind(struct session *session, int index, const char *text)
{
    struct json json, rest;
    enum json_token token;

    json_begin(&json, text, strlen(text));
    token = json_next(&json);
    rest = json;
    if (token == JSON_OBJECT || token == JSON_ARRAY || json_next(&rest) != JSON_END) {
        token = JSON_ERROR;
    }
    switch (token) {
    case JSON_NUMBER:
        return session_result(session, session_bind_number(session, index, json.text));
    case JSON_STRING:
        return session_bind_quoted(session, index, &json);
    case JSON_TRUE:
    case JSON_FALSE:
        return session_result(session,
                              omendb_filter_bind_bool(session->filter, index, token == JSON_TRUE));
    case JSON_NULL:
        return OMENDB_OK; /* as it is unbound */
    default:
        return session_result(session, omendb_filter_bind_text(session->filter, index, text));
    }
}

int session_compile_filter(struct session *session)
{
    const struct arguments *arguments = &session->arguments;
    const size_t given = arguments->parameter_count;
    int code, count, i;

    if (arguments->filter == NULL) {
        return given == 0 ? OMENDB_OK
                          : failure_set(&session->failure, FAILURE_USAGE,
                                        "--param is of a --filter, which is not given");
    }
    code = session_result(session,
                          omendb_filter_compile(session->db, arguments->filter, &session->filter));
    if (code != OMENDB_OK) {
        return code;
    }
    count = omendb_filter_parameter_count(session->filter);
    if ((size_t)count != given) {
        return failure_set(&session->failure, FAILURE_USAGE,
                           "the filter has %d parameter%s, %zu given; each takes a --param VALUE",
                           count, count == 1 ? "" : "s", given);
    }
    for (i = 0; i < count && code == OMENDB_OK; i++) {
        code = session_bind(session, i + 1, arguments->parameters[i]);
    }
    return code;
}

int session_close(struct session *session)
{
    omendb_filter_free(session->filter);
    session->filter = NULL;
    omendb_collection_close(session->collection);
    session->collection = NULL;
    session_result(session, omendb_close(session->db));
    session->db = NULL;
    return session->failure.code;
}

#undef SESSION_STALL_MS
#undef SESSION_REHEARSE_BYTES
