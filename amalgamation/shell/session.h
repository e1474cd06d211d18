/* session.h: one run of the shell: its arguments, its database, its failure. */
#ifndef OMENDB_SHELL_SESSION_H
#define OMENDB_SHELL_SESSION_H

#include "arguments.h"
#include "failure.h"
#include "omendb.h"
#include "output.h"

struct session {
    struct arguments arguments;
    struct failure failure;
    struct output_json json;
    omendb *db;
    omendb_collection *collection;
    char name[256]; /* of the collection */
    omendb_schema schema;
    omendb_filter *filter; /* of --filter, once session_compile_filter was called */
    bool reported;         /* the failure stands in the JSON that was printed */
};

enum session_mode {
    SESSION_READ,    /* for reading: works beside a writer in another process */
    SESSION_WRITE,   /* for writing; the database must be there */
    SESSION_CREATE,  /* for writing; created when it is missing */
    SESSION_REHEARSE /* an empty one in memory, to try what is about to be done */
};

/* Opens the database of the arguments. */
int session_open(struct session *session, enum session_mode mode);

/* Opens the database of the arguments for writing, and creates it when it is missing: but only once
 * `rehearse`, given `context`, succeeds on an empty database in memory, so that what must fail
 * leaves nothing behind. */
int session_open_or_create(struct session *session, int (*rehearse)(void *context), void *context);

/* Chooses the collection by the rules of the shell: --collection; the only one there is;
 * "default". Sets session->name. OMENDB_NOTFOUND when there are several and none of them is
 * "default", and, unless `creating`, when there is none. */
int session_choose_collection(struct session *session, bool creating);

/* Chooses and opens the collection, and reads its schema. */
int session_open_collection(struct session *session);

/* Compiles --filter and binds each --param; without one session->filter stays NULL, which all
 * records match. */
int session_compile_filter(struct session *session);

/* Closes what is open; returns the failure of the session, or one of closing. */
int session_close(struct session *session);

/* After a call of the library: OMENDB_OK, or sets the failure with the library's sentence. */
int session_result(struct session *session, int code);

/* Asks to stop: set by the interrupt signal once session_catch_interrupt was called. */
void session_catch_interrupt(void);
bool session_interrupted(void);

#endif
