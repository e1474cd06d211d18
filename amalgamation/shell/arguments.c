/* arguments.c: `omendb DB COMMAND WORDS... OPTIONS...`, options anywhere behind COMMAND.
 *
 * Invariant: every option says which commands know it, what kind of value it takes and between
 * which limits, in one table; nothing is parsed elsewhere. A command that gets an option that it
 * would ignore is refused, since the user meant something by it.
 *
 * `--name value` and `--name=value` are the same; "--" ends the options; "-" alone is a word (the
 * standard input). A value may begin with a minus: options that take one take the next word
 * whatever it is.
 *
 * Rejected: getopt, which cannot tell commands apart, permutes argv on one system and stops at the
 * first word on another. */
#include "arguments.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define ON(command) (1u << COMMAND_##command)
#define ANYWHERE    ((1u << COMMAND_COUNT) - 1)

enum arguments_kind {
    ARGUMENTS_FLAG,
    ARGUMENTS_TEXT,
    ARGUMENTS_PARAMETER, /* which may be given again */
    ARGUMENTS_WHOLE,
    ARGUMENTS_FLOAT,
    ARGUMENTS_METRIC,
    ARGUMENTS_SCALAR
};

#define ARGUMENTS_NO_FLAG ((size_t)-1)

struct arguments_option {
    const char *name;
    const char *letter; /* short form, or NULL */
    unsigned int commands;
    enum arguments_kind kind;
    size_t offset;
    size_t given; /* of a flag that is set, or ARGUMENTS_NO_FLAG */
    uint64_t least, most;
};

#define AT(field) offsetof(struct arguments, field)

#define COLLECTION_COMMANDS                                                                        \
    (ON(IMPORT) | ON(EXPORT) | ON(SEARCH) | ON(GET) | ON(DELETE) | ON(INFO) | ON(COUNT_RECORDS) |  \
     ON(PUT) | ON(CALIBRATE) | ON(FACETS) | ON(LIMITS) | ON(LIMIT) | ON(FIELDS) | ON(DECLARE) |    \
     ON(UPDATE))
#define FILTER_COMMANDS (ON(SEARCH) | ON(COUNT_RECORDS) | ON(DELETE) | ON(EXPORT) | ON(FACETS))
#define FILE_COMMANDS   (ON(IMPORT) | ON(SEARCH) | ON(CALIBRATE))
#define NEW_COMMANDS    (ON(IMPORT) | ON(CREATE)) /* those that may make a collection */
#define PLAIN           ARGUMENTS_NO_FLAG

static const struct arguments_option arguments_options[] = {
    {"--json", NULL, ANYWHERE, ARGUMENTS_FLAG, AT(json), PLAIN, 0, 0},
    {"--read-only", NULL, ANYWHERE, ARGUMENTS_FLAG, AT(read_only), PLAIN, 0, 0},
    {"--collection", NULL, COLLECTION_COMMANDS, ARGUMENTS_TEXT, AT(collection), PLAIN, 0, 0},
    {"--filter", NULL, FILTER_COMMANDS, ARGUMENTS_TEXT, AT(filter), PLAIN, 0, 0},
    {"--param", NULL, FILTER_COMMANDS, ARGUMENTS_PARAMETER, AT(parameters), PLAIN, 0, 0},
    {"--key", NULL, ON(SEARCH) | ON(GET) | ON(PUT) | ON(UPDATE) | ON(DELETE), ARGUMENTS_TEXT,
     AT(key), PLAIN, 0, 0},
    {"--metadata", NULL, ON(PUT), ARGUMENTS_TEXT, AT(metadata), PLAIN, 0, 0},
    {"--fields", NULL, ON(SEARCH) | ON(GET), ARGUMENTS_TEXT, AT(fields), PLAIN, 0, 0},
    {"--format", NULL, FILE_COMMANDS | ON(EXPORT), ARGUMENTS_TEXT, AT(format), PLAIN, 0, 0},
    {"--limit", NULL, FILE_COMMANDS | ON(EXPORT) | ON(FACETS), ARGUMENTS_WHOLE, AT(limit),
     AT(limit_given), 0, UINT64_MAX},
    {"--packed", NULL, FILE_COMMANDS, ARGUMENTS_FLAG, AT(packed), PLAIN, 0, 0},
    {"--skip", NULL, ON(IMPORT) | ON(CALIBRATE), ARGUMENTS_WHOLE, AT(skip), PLAIN, 0, UINT64_MAX},
    {"--ids", NULL, ON(IMPORT) | ON(EXPORT), ARGUMENTS_TEXT, AT(ids), PLAIN, 0, 0},
    {"--dim", NULL, ON(CREATE), ARGUMENTS_WHOLE, AT(dim), PLAIN, 1, 65535},
    {"--metric", NULL, NEW_COMMANDS, ARGUMENTS_METRIC, AT(metric), PLAIN, 0, 0},
    {"--type", NULL, NEW_COMMANDS, ARGUMENTS_SCALAR, AT(scalar), PLAIN, 0, 0},
    {"--scale", NULL, NEW_COMMANDS, ARGUMENTS_FLOAT, AT(scale), PLAIN, 0, 0},
    {"--m", "-M", NEW_COMMANDS, ARGUMENTS_WHOLE, AT(M), PLAIN, 2, 256},
    {"--ef-construction", NULL, NEW_COMMANDS, ARGUMENTS_WHOLE, AT(ef_construction), PLAIN, 8,
     10000},
    {"--ids-from", NULL, ON(IMPORT), ARGUMENTS_WHOLE, AT(ids_from), AT(ids_from_given), 0,
     UINT64_MAX - 1},
    {"--batch", NULL, ON(IMPORT), ARGUMENTS_WHOLE, AT(batch), PLAIN, 1, 1000000},
    {"--put", NULL, ON(IMPORT), ARGUMENTS_FLAG, AT(put), PLAIN, 0, 0},
    {"--optimize", NULL, ON(IMPORT), ARGUMENTS_FLAG, AT(optimize), PLAIN, 0, 0},
    {"--vector", NULL, ON(SEARCH), ARGUMENTS_TEXT, AT(vector), PLAIN, 0, 0},
    {"--file", NULL, ON(SEARCH), ARGUMENTS_TEXT, AT(file), PLAIN, 0, 0},
    {"--id", NULL, ON(SEARCH), ARGUMENTS_WHOLE, AT(id), AT(id_given), 0, UINT64_MAX - 1},
    {"--row", NULL, ON(SEARCH), ARGUMENTS_WHOLE, AT(row), AT(row_given), 0, UINT64_MAX - 1},
    {"--k", "-k", ON(SEARCH), ARGUMENTS_WHOLE, AT(k), PLAIN, 1, 10000000},
    {"--ef", NULL, ON(SEARCH) | ON(CREATE), ARGUMENTS_WHOLE, AT(ef), PLAIN, 1, 100000},
    {"--recall", NULL, ON(SEARCH), ARGUMENTS_FLOAT, AT(recall), PLAIN, 0, 0},
    {"--stretch", NULL, ON(SEARCH), ARGUMENTS_FLOAT, AT(stretch), PLAIN, 0, 0},
    {"--timeout", NULL, ON(SEARCH), ARGUMENTS_WHOLE, AT(timeout_ms), PLAIN, 1, 1000000000},
    {"--radius", NULL, ON(SEARCH), ARGUMENTS_FLOAT, AT(radius), AT(radius_given), 0, 0},
    {"--exact", NULL, ON(SEARCH), ARGUMENTS_FLAG, AT(exact), PLAIN, 0, 0},
    {"--explain", NULL, ON(SEARCH), ARGUMENTS_FLAG, AT(explain), PLAIN, 0, 0},
    {"--like", NULL, ON(SEARCH), ARGUMENTS_TEXT, AT(like), PLAIN, 0, 0},
    {"--unlike", NULL, ON(SEARCH), ARGUMENTS_TEXT, AT(unlike), PLAIN, 0, 0},
    {"--group-by", NULL, ON(SEARCH), ARGUMENTS_TEXT, AT(group_by), PLAIN, 0, 0},
    {"--group-size", NULL, ON(SEARCH), ARGUMENTS_WHOLE, AT(group_size), PLAIN, 1, 10000000},
    {"--pages", NULL, ON(SEARCH), ARGUMENTS_WHOLE, AT(pages), PLAIN, 1, UINT64_MAX},
    {"--records", NULL, ON(LIMIT), ARGUMENTS_WHOLE, AT(records), AT(records_given), 0, UINT64_MAX},
    {"--bytes", NULL, ON(LIMIT), ARGUMENTS_WHOLE, AT(bytes), AT(bytes_given), 0, UINT64_MAX},
    {"--queries-per-second", NULL, ON(LIMIT), ARGUMENTS_WHOLE, AT(queries), AT(queries_given), 0,
     UINT64_MAX},
    {"--writes-per-second", NULL, ON(LIMIT), ARGUMENTS_WHOLE, AT(writes), AT(writes_given), 0,
     UINT64_MAX},
    {"--strict", NULL, ON(DECLARE), ARGUMENTS_FLAG, AT(strict), PLAIN, 0, 0},
    {"--none", NULL, ON(DECLARE), ARGUMENTS_FLAG, AT(none), PLAIN, 0, 0},
};

struct arguments_command {
    const char *name;
    enum command command;
    size_t least, most; /* words behind it */
    const char *words;
    bool writes; /* to the database */
};

static const struct arguments_command arguments_commands[] = {
    {"help", COMMAND_HELP, 0, 1, "COMMAND | filters", false},
    {"import", COMMAND_IMPORT, 1, 1, "FILE", true},
    {"export", COMMAND_EXPORT, 1, 1, "FILE", false},
    {"search", COMMAND_SEARCH, 0, 0,
     "--vector '[...]' | --id N | --key KEY | --like ID,ID | --file FILE", false},
    {"get", COMMAND_GET, 0, SIZE_MAX, "ID... | --key KEY", false},
    {"count", COMMAND_COUNT_RECORDS, 0, 0, "", false},
    {"put", COMMAND_PUT, 1, 2, "[ID] '[0.5, 0.25]'", true},
    {"update", COMMAND_UPDATE, 1, 2, "ID '{\"year\": 2024}' | --key KEY '{...}'", true},
    {"delete", COMMAND_DELETE, 0, SIZE_MAX, "ID... | --key KEY | --filter CONDITION", true},
    {"info", COMMAND_INFO, 0, 0, "", false},
    {"collections", COMMAND_COLLECTIONS, 0, 0, "", false},
    {"create", COMMAND_CREATE, 1, 1, "COLLECTION --dim N", true},
    {"drop", COMMAND_DROP, 1, 1, "COLLECTION", true},
    {"calibrate", COMMAND_CALIBRATE, 1, 1, "FILE", true},
    {"optimize", COMMAND_OPTIMIZE, 0, 0, "", true},
    {"purge", COMMAND_PURGE, 0, 1, "[COLLECTION]", true},
    {"check", COMMAND_CHECK, 0, 0, "", false},
    {"backup", COMMAND_BACKUP, 1, 1, "PATH", true},
    {"salvage", COMMAND_SALVAGE, 1, 1, "PATH", true},
    {"prepared", COMMAND_PREPARED, 0, 0, "", false},
    {"commit", COMMAND_COMMIT, 1, 1, "NAME", true},
    {"rollback", COMMAND_ROLLBACK, 1, 1, "NAME", true},
    {"forget", COMMAND_FORGET, 1, 1, "NAME", true},
    {"facets", COMMAND_FACETS, 1, 1, "FIELD", false},
    {"limits", COMMAND_LIMITS, 0, 0, "", false},
    {"limit", COMMAND_LIMIT, 0, 0, "--records N --bytes N ...", true},
    {"fields", COMMAND_FIELDS, 0, 0, "", false},
    {"declare", COMMAND_DECLARE, 0, SIZE_MAX, "FIELD:TYPE... | --none", true},
};

/* The option that `word` names, and by which of its names; *value is behind its '=', or NULL. */
static const struct arguments_option *arguments_find_option(const char *word, const char **name,
                                                            const char **value)
{
    const size_t length = strcspn(word, "=");
    size_t i;

    for (i = 0; i < sizeof arguments_options / sizeof *arguments_options; i++) {
        const struct arguments_option *option = &arguments_options[i];

        if (strlen(option->name) == length && memcmp(option->name, word, length) == 0) {
            *name = option->name;
            *value = word[length] == '=' ? word + length + 1 : NULL;
            return option;
        }
        if (option->letter != NULL && strncmp(word, option->letter, 2) == 0) {
            *name = option->letter;
            *value = word[2] != '\0' ? word + 2 : NULL;
            return option;
        }
    }
    return NULL;
}

static int arguments_set_whole(struct arguments *arguments, const struct arguments_option *option,
                               const char *name, const char *value, struct failure *failure)
{
    uint64_t whole;

    if (!json_parse_whole(value, strlen(value), &whole) || whole < option->least ||
        whole > option->most) {
        return failure_set(failure, FAILURE_USAGE, "%s: '%s' is no whole number from %llu to %llu",
                           name, value, (unsigned long long)option->least,
                           (unsigned long long)option->most);
    }
    memcpy((char *)arguments + option->offset, &whole, sizeof whole);
    return OMENDB_OK;
}

static int arguments_set_float(struct arguments *arguments, const struct arguments_option *option,
                               const char *value, struct failure *failure)
{
    char *end;
    float number = strtof(value, &end);

    if (end == value || *end != '\0' || !isfinite(number)) {
        return failure_set(failure, FAILURE_USAGE, "%s: '%s' is no finite number", option->name,
                           value);
    }
    if (option->offset == AT(scale) && !(number > 0)) {
        return failure_set(failure, FAILURE_USAGE, "--scale: '%s' must be above 0", value);
    }
    if (option->offset == AT(recall) && !(number > 0 && number <= 1)) {
        return failure_set(failure, FAILURE_USAGE, "--recall: '%s' must be above 0 and at most 1",
                           value);
    }
    if (option->offset == AT(stretch) && !(number >= 1)) {
        return failure_set(failure, FAILURE_USAGE, "--stretch: '%s' must be 1 or more", value);
    }
    memcpy((char *)arguments + option->offset, &number, sizeof number);
    return OMENDB_OK;
}

/* name_of: the library's, of the numbers from 0 to `last`. */
static int arguments_set_name(int *number, const char *(*name_of)(int), int last,
                              const char *option, const char *value, struct failure *failure)
{
    for (*number = 0; *number <= last; (*number)++) {
        if (strcmp(name_of(*number), value) == 0) {
            return OMENDB_OK;
        }
    }
    failure_set(failure, FAILURE_USAGE, "%s: no '%s'; there are", option, value);
    for (*number = 0; *number <= last; (*number)++) {
        failure_suffix(failure, " %s", name_of(*number));
    }
    return FAILURE_USAGE;
}

/* name: as it was typed. */
static int arguments_set(struct arguments *arguments, const struct arguments_option *option,
                         const char *name, const char *value, struct failure *failure)
{
    char *field = (char *)arguments + option->offset;
    const bool yes = true;

    if (option->given != ARGUMENTS_NO_FLAG) {
        memcpy((char *)arguments + option->given, &yes, sizeof yes);
    }
    switch (option->kind) {
    case ARGUMENTS_FLAG:
        memcpy(field, &yes, sizeof yes);
        return OMENDB_OK;
    case ARGUMENTS_TEXT:
        memcpy(field, &value, sizeof value);
        return OMENDB_OK;
    case ARGUMENTS_PARAMETER:
        if (arguments->parameter_count == ARGUMENTS_PARAMETERS_MAX) {
            return failure_set(failure, FAILURE_USAGE, "%s is given more than %d times", name,
                               ARGUMENTS_PARAMETERS_MAX);
        }
        arguments->parameters[arguments->parameter_count++] = value;
        return OMENDB_OK;
    case ARGUMENTS_WHOLE:
        return arguments_set_whole(arguments, option, name, value, failure);
    case ARGUMENTS_FLOAT:
        return arguments_set_float(arguments, option, value, failure);
    case ARGUMENTS_METRIC:
        return arguments_set_name(&arguments->metric, omendb_metric_name, OMENDB_HAMMING,
                                  option->name, value, failure);
    case ARGUMENTS_SCALAR:
        return arguments_set_name(&arguments->scalar, omendb_scalar_name, OMENDB_B1, option->name,
                                  value, failure);
    }
    return FAILURE_USAGE;
}

/* The option at values[*i]; moves on to its value where that is the next word. */
static int arguments_option(struct arguments *arguments, int count, char **values, int *i,
                            struct failure *failure)
{
    const char *name = NULL, *value = NULL;
    const char *word = values[*i];
    const struct arguments_option *option = arguments_find_option(word, &name, &value);

    if (option == NULL) {
        return failure_set(failure, FAILURE_USAGE, "no option '%s'; see omendb --help", word);
    }
    if ((option->commands & 1u << arguments->command) == 0) {
        return failure_set(failure, FAILURE_USAGE, "%s does not belong to this command", name);
    }
    if (option->kind == ARGUMENTS_FLAG) {
        return value == NULL ? arguments_set(arguments, option, name, NULL, failure)
                             : failure_set(failure, FAILURE_USAGE, "%s takes no value", name);
    }
    if (value == NULL && *i + 1 < count) {
        value = values[++*i];
    }
    if (value == NULL) {
        return failure_set(failure, FAILURE_USAGE, "%s needs a value", name);
    }
    return arguments_set(arguments, option, name, value, failure);
}

static const struct arguments_command *arguments_find_command(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof arguments_commands / sizeof *arguments_commands; i++) {
        if (strcmp(arguments_commands[i].name, name) == 0) {
            return &arguments_commands[i];
        }
    }
    return NULL;
}

/* Everything behind the command. */
static int arguments_rest(struct arguments *arguments, int count, char **values, int first,
                          const char **words, struct failure *failure)
{
    bool options = true;
    int code = OMENDB_OK, i;

    arguments->words = words;
    for (i = first; i < count && code == OMENDB_OK; i++) {
        if (options && strcmp(values[i], "--") == 0) {
            options = false;
        } else if (options && (strcmp(values[i], "--help") == 0 || strcmp(values[i], "-h") == 0)) {
            arguments->topic = arguments->command;
            arguments->command = COMMAND_HELP;
            return OMENDB_OK;
        } else if (options && values[i][0] == '-' && values[i][1] != '\0') {
            code = arguments_option(arguments, count, values, &i, failure);
        } else {
            words[arguments->word_count++] = values[i];
        }
    }
    return code;
}

/* "--json" is found before anything else, so that errors in the rest are JSON as well. */
static bool arguments_want_json(int count, char **values)
{
    int i;

    for (i = 1; i < count; i++) {
        if (strcmp(values[i], "--json") == 0) {
            return true;
        }
    }
    return false;
}

static bool arguments_is_help(const char *word)
{
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

/* What help can be asked about: a command, or the language of filters. */
static int arguments_find_topic(struct arguments *arguments, const char *name,
                                struct failure *failure)
{
    const struct arguments_command *command = arguments_find_command(name);

    if (command == NULL && strcmp(name, "filters") != 0) {
        return failure_set(failure, FAILURE_USAGE, "no help about '%s'; see omendb --help", name);
    }
    arguments->topic = command != NULL ? command->command : COMMAND_FILTERS;
    return OMENDB_OK;
}

/* `omendb --help`, `omendb --version`, `omendb COMMAND --help`: there is no database. Returns
 * whether it was one of them. */
static bool arguments_without_database(struct arguments *arguments, int count, char **values)
{
    const struct arguments_command *command = count == 3 ? arguments_find_command(values[1]) : NULL;

    if (strcmp(values[1], "--version") == 0) {
        arguments->command = COMMAND_VERSION;
        return true;
    }
    if (command != NULL && arguments_is_help(values[2])) {
        arguments->topic = command->command;
        return true;
    }
    return arguments_is_help(values[1]) || (strcmp(values[1], "help") == 0 && count == 2) ||
           (count > 2 && arguments_is_help(values[2]));
}

/* Whether the words behind the command and --read-only suit it. */
static int arguments_check(struct arguments *arguments, const struct arguments_command *command,
                           struct failure *failure)
{
    if (arguments->word_count < command->least || arguments->word_count > command->most) {
        return failure_set(failure, FAILURE_USAGE, "usage: omendb DB %s %s%s", command->name,
                           command->words,
                           arguments->word_count > command->most ? " takes no more words" : "");
    }
    if (arguments->read_only && command->writes) {
        return failure_set(failure, FAILURE_USAGE,
                           "--read-only: %s writes; those that only read are %s", command->name,
                           ARGUMENTS_READERS);
    }
    if (command->command == COMMAND_HELP && arguments->word_count == 1) {
        return arguments_find_topic(arguments, arguments->words[0], failure);
    }
    return OMENDB_OK;
}

int arguments_parse(struct arguments *arguments, int count, char **values, const char **words,
                    struct failure *failure)
{
    const struct arguments_command *command;
    int code;

    memset(arguments, 0, sizeof *arguments);
    arguments->metric = arguments->scalar = -1;
    arguments->json = arguments_want_json(count, values);
    if (count < 2) {
        return failure_set(failure, FAILURE_USAGE,
                           "which database? omendb DB COMMAND; see omendb --help");
    }
    if (arguments_without_database(arguments, count, values)) {
        return OMENDB_OK;
    }
    if (strcmp(values[1], "help") == 0) {
        return count == 3 ? arguments_find_topic(arguments, values[2], failure)
                          : failure_set(failure, FAILURE_USAGE,
                                        "usage: omendb help COMMAND; a database of this name is "
                                        "./help");
    }
    if (values[1][0] == '-') {
        return failure_set(failure, FAILURE_USAGE,
                           "the database comes first: omendb DB COMMAND; see omendb --help");
    }
    arguments->database = values[1];
    if (strcmp(values[1], ":memory:") == 0) {
        return failure_set(failure, FAILURE_USAGE,
                           "a database in memory would end with the command; name a directory");
    }
    if (count < 3) {
        return failure_set(failure, FAILURE_USAGE,
                           "which command? omendb %s info, for instance; see omendb --help",
                           values[1]);
    }
    command = arguments_find_command(values[2]);
    if (command == NULL) {
        return failure_set(failure, FAILURE_USAGE, "no command '%s'; see omendb --help", values[2]);
    }
    arguments->command = command->command;
    code = arguments_rest(arguments, count, values, 3, words, failure);
    if (code == OMENDB_OK && arguments->command == command->command) {
        code = arguments_check(arguments, command, failure);
    }
    return code;
}

#undef COLLECTION_COMMANDS
#undef FILTER_COMMANDS
#undef FILE_COMMANDS
#undef NEW_COMMANDS
#undef PLAIN
#undef ON
#undef ANYWHERE
#undef AT
#undef ARGUMENTS_NO_FLAG
