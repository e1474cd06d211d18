/* arguments.h: the command line as a structure. */
#ifndef OMENDB_SHELL_ARGUMENTS_H
#define OMENDB_SHELL_ARGUMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "failure.h"

enum command {
    COMMAND_HELP,
    COMMAND_VERSION,
    COMMAND_IMPORT,
    COMMAND_EXPORT,
    COMMAND_SEARCH,
    COMMAND_GET,
    COMMAND_DELETE,
    COMMAND_INFO,
    COMMAND_COLLECTIONS,
    COMMAND_DROP,
    COMMAND_OPTIMIZE,
    COMMAND_PURGE,
    COMMAND_CHECK,
    COMMAND_BACKUP,
    COMMAND_SALVAGE,
    COMMAND_COUNT_RECORDS,
    COMMAND_CREATE,
    COMMAND_PUT,
    COMMAND_CALIBRATE,
    COMMAND_PREPARED,
    COMMAND_COMMIT,
    COMMAND_ROLLBACK,
    COMMAND_FORGET,
    COMMAND_FACETS,
    COMMAND_LIMITS,
    COMMAND_LIMIT,
    COMMAND_FIELDS,
    COMMAND_DECLARE,
    COMMAND_UPDATE,
    COMMAND_FILTERS, /* no command: a topic of COMMAND_HELP */
    COMMAND_COUNT    /* of the commands */
};

/* Commands that only read, for messages. */
#define ARGUMENTS_READERS                                                                          \
    "search, get, count, facets, export, info, collections, limits, fields, prepared and check"

/* Of one filter. */
#define ARGUMENTS_PARAMETERS_MAX 64

/* An option that was not given is 0, false or NULL. */
struct arguments {
    enum command command;
    enum command topic; /* of COMMAND_HELP; COMMAND_HELP: all */
    const char *database;
    const char *const *words; /* behind the command, options left out */
    size_t word_count;

    bool json;
    bool read_only;
    const char *collection;
    const char *filter;
    const char *parameters[ARGUMENTS_PARAMETERS_MAX]; /* of the filter, in their order */
    size_t parameter_count;
    const char *key;
    const char *metadata;
    const char *fields; /* names, with commas between them */
    /* files: import, export, calibrate, search --file; limit: facets, too */
    const char *format;
    uint64_t limit;
    bool limit_given;
    bool packed;
    uint64_t skip;
    const char *ids; /* a file of ids */
    /* import, create */
    uint64_t dim;
    int metric; /* -1: not given */
    int scalar; /* -1: not given */
    float scale;
    uint64_t ids_from;
    bool ids_from_given;
    uint64_t batch;
    uint64_t M;
    uint64_t ef_construction;
    bool put;
    bool optimize;
    /* search */
    const char *vector;
    const char *file;
    uint64_t id;
    bool id_given;
    uint64_t row;
    bool row_given;
    uint64_t k;
    uint64_t ef; /* create, too */
    float recall;
    float stretch;
    uint64_t timeout_ms;
    float radius;
    bool radius_given;
    bool exact;
    bool explain;
    const char *like; /* ids, with commas between them */
    const char *unlike;
    const char *group_by;
    uint64_t group_size;
    uint64_t pages;
    /* limit */
    uint64_t records;
    bool records_given;
    uint64_t bytes;
    bool bytes_given;
    uint64_t queries;
    bool queries_given;
    uint64_t writes;
    bool writes_given;
    /* declare */
    bool strict;
    bool none;
};

/* Reads the command line. `words` takes the words behind the command: as many places as `count`.
 * Returns: OMENDB_OK, or sets the failure (FAILURE_USAGE); `json` is set all the same when asked.
 */
int arguments_parse(struct arguments *arguments, int count, char **values, const char **words,
                    struct failure *failure);

#endif
