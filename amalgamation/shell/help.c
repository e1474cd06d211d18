/* help.c: what --help prints: all commands in a screen, or one with all of its options.
 *
 * Invariant: every option of the table in arguments.c is named in the text of every command that
 * knows it; the tests compare them. */
#include "commands.h"

static const char help_overview[] =
    "omendb DB COMMAND: a vector database in the directory DB\n"
    "omendb DB COMMAND --help: the options of a command; omendb help filters: conditions\n"
    "\n"
    "Reading; works beside a program that writes, and takes --read-only to say so:\n"
    "  search            the nearest records: --vector '[0.5, 0.25]', --id N or --file FILE\n"
    "  facets FIELD      how many records have each value of a field\n"
    "  get ID...         prints records\n"
    "  count             the number of records\n"
    "  export FILE       writes .csv, .jsonl or .npy\n"
    "  info              records, files, memory, collections\n"
    "  collections       the collections\n"
    "  limits            what a collection may hold, and what it holds\n"
    "  fields            the declared fields of the metadata\n"
    "  prepared          transactions that were prepared, and their outcomes\n"
    "  check             verifies every checksum and structure\n"
    "\n"
    "Writing; one program at a time:\n"
    "  import FILE       adds the rows of a .npy, .fvecs, .bvecs, .fbin, .u8bin, .i8bin, .csv or\n"
    "                    .jsonl file; creates what is missing\n"
    "  put [ID] VECTOR   stores one record, in place of one with the same id\n"
    "  update ID JSON    changes fields of a record's metadata\n"
    "  delete ID...      deletes records\n"
    "  create COLLECTION --dim N\n"
    "  drop COLLECTION   deletes a collection\n"
    "  limit             limits a collection: --records N, --bytes N\n"
    "  declare FIELD:TYPE...\n"
    "                    says what metadata must be\n"
    "  calibrate FILE    measures recall on your own queries\n"
    "  commit NAME       gives a prepared transaction its outcome,\n"
    "  rollback NAME     or the other one\n"
    "  forget NAME       forgets an outcome\n"
    "  optimize          finishes graphs, drops deleted rows, merges segments\n"
    "  purge             overwrites what was deleted\n"
    "  backup PATH       copies the database, or what is new since the last backup there\n"
    "  salvage PATH      saves what is intact of a damaged database into a new one\n"
    "\n"
    "  --collection NAME   needed only where there are several and none is named \"default\"\n"
    "  --json              results and errors for scripts\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 the command line was not understood.\n";

#define HELP_COLLECTION                                                                            \
    "  --collection NAME     the only one, or \"default\", where it is not given\n"
#define HELP_JSON "  --json                result or error as one JSON value\n"
#define HELP_FILTER                                                                                \
    "  --filter CONDITION    only records whose metadata match: \"lang = 'en' AND year > "         \
    "2020\";\n"                                                                                    \
    "                        \"omendb help filters\" has the language\n"                           \
    "  --param VALUE         of a ? or :name in it, in their order, one for each: a number, "      \
    "true,\n"                                                                                      \
    "                        false or null as in JSON, else a text; \"2020\" in quotes is one, "   \
    "too\n"
#define HELP_FIELDS "  --fields NAME,NAME    prints only these fields of the metadata\n"
#define HELP_READ_ONLY                                                                             \
    "  --read-only           what it does anyway; a command that writes refuses it\n"
#define HELP_READS  "Only reads: works while another program writes, and changes nothing.\n\n"
#define HELP_WRITES "Writes: no other program may have the database open for writing.\n\n"
#define HELP_FORMAT                                                                                \
    "  --format NAME         npy, fvecs, bvecs, fbin, u8bin, i8bin, csv or jsonl; else by the\n"   \
    "                        end of the name\n"
#define HELP_PACKED "  --packed              rows of bytes are bits, the first in the lowest bit\n"
#define HELP_SCHEMA                                                                                \
    "  --metric NAME         l2 (squared Euclidean distance), cosine, ip or hamming\n"             \
    "  --type NAME           stored as f32, f16, bf16, i8, u8 or b1\n"                             \
    "  --scale S             for i8 and u8: stored = round(x * S); 1. Values outside of\n"         \
    "                        -128..127 or 0..255 are clamped, with a warning\n"                    \
    "  --m N, -M N           links of a row in the graph; 16\n"                                    \
    "  --ef-construction N   candidates while the graph is built; 200\n"

static const char help_import[] =
    "omendb DB import FILE: adds the rows of a file; creates database and collection\n"
    "\n"
    "FILE is \"-\" (the standard input, with --format) or ends with\n"
    "  .npy                  a two-dimensional array: f2, f4, f8, u1, i1, or wider whole numbers\n"
    "                        that a 32-bit float holds\n"
    "  .fvecs .bvecs .fbin .u8bin .i8bin\n"
    "  .csv                  id, elements; a first line that begins with \"id\" is one of names\n"
    "  .jsonl                {\"id\": 1, \"vector\": [0.5, 0.25], \"key\": \"a\",\n"
    "                        \"metadata\": {\"lang\": \"en\"}}; other names are skipped; all but\n"
    "                        \"vector\" may be left out, \"id\" in all lines or in none\n"
    "Every batch is one commit. When the first one fails, nothing is left of what was created;\n"
    "when a later one does, the message tells how to go on.\n"
    "\n" HELP_WRITES
    "  --put                 replaces records with the same ids, without ids those with\n"
    "                        the same keys\n"
    "  --ids FILE.npy        the ids of the rows: one-dimensional, whole numbers\n"
    "  --ids-from N          numbers the rows from N on\n"
    "  --skip N, --limit N   leaves out the first N rows; ends after N\n"
    "  --batch N             rows a commit; 10,000, or what fits into 16 MiB\n"
    "  --optimize            merges everything into one graph afterwards\n" HELP_FORMAT HELP_PACKED
    "\n"
    "Of a new collection (one that is there is compared with them):\n" HELP_SCHEMA
    "\n" HELP_COLLECTION HELP_JSON;

static const char help_search[] =
    "omendb DB search: the nearest records, and their distances\n"
    "\n" HELP_READS "For what; one of\n"
    "  --vector '[0.5, 0.25]'\n"
    "  --id N, --key KEY     like this record, which is left out\n"
    "  --like ID,ID          like these records, and with --unlike ID,ID unlike those; all of "
    "them\n"
    "                        are left out\n"
    "  --file FILE           like every row of a file, as of import; --row N: of this one (from\n"
    "                        0), --limit N: of the first N\n" HELP_FORMAT HELP_PACKED "\n"
    "How well; at most one of --recall, --ef (also with --stretch) and --exact\n"
    "  --recall R            the share of the true nearest to be found, as 0.95, on average\n"
    "  --ef N                candidates kept: more finds more and takes longer\n"
    "  --stretch S           1 or more: stops where the nearest candidate left is S times farther\n"
    "                        than the last hit; 1.1 to 1.4 are of use\n"
    "  --exact               compares every record\n"
    "\n"
    "  -k N, --k N           hits; 10\n" HELP_FILTER
    "  --group-by FIELD      at most --group-size N hits (1) have the same value of this field of\n"
    "                        the metadata\n"
    "  --pages N             up to N pages of k hits, one after the other\n"
    "  --radius R            only hits that are no farther\n"
    "  --timeout MS          fails after so many milliseconds of searching, all rows together\n"
    "  --explain             what the search did\n" HELP_FIELDS HELP_COLLECTION HELP_READ_ONLY
        HELP_JSON;

static const char help_get[] =
    "omendb DB get ID...: prints records: id, vector, and key and metadata where they have some\n"
    "\n"
    "Those that are there are printed also when others are missing; the exit status then is 1.\n"
    "\n" HELP_READS
    "  --key KEY             in place of ID...: the one that has this key\n" HELP_FIELDS
        HELP_COLLECTION HELP_READ_ONLY HELP_JSON;

static const char help_count[] =
    "omendb DB count: the number of records\n"
    "\n" HELP_READS HELP_FILTER HELP_COLLECTION HELP_READ_ONLY HELP_JSON;

static const char help_facets[] =
    "omendb DB facets FIELD: how many records have each value of a field of the metadata\n"
    "\n"
    "The values of the most records come first. Of an array each text counts.\n"
    "\n" HELP_READS "  --limit N             only the first N values\n" HELP_FILTER HELP_COLLECTION
        HELP_READ_ONLY HELP_JSON;

static const char help_limits[] =
    "omendb DB limits: what a collection may hold, and how often it may be used\n"
    "\n"
    "What goes over a limit fails, with the code \"quota\", and nothing of it is done. \"limit\"\n"
    "sets them.\n"
    "\n" HELP_READS HELP_COLLECTION HELP_READ_ONLY HELP_JSON;

static const char help_limit[] =
    "omendb DB limit: sets limits of a collection; those that are not given stay\n"
    "\n"
    "0 is no limit. \"limits\" shows them.\n"
    "\n" HELP_WRITES "  --records N           records\n"
    "  --bytes N             bytes of vectors, keys and metadata, and 8 a record\n"
    "  --queries-per-second N\n"
    "  --writes-per-second N records that are added, put, updated, deleted\n" HELP_COLLECTION
        HELP_JSON;

static const char help_fields[] =
    "omendb DB fields: the declared fields of the metadata\n"
    "\n"
    "Metadata may have other fields, too, where they are not declared strictly.\n"
    "\n" HELP_READS HELP_COLLECTION HELP_READ_ONLY HELP_JSON;

static const char help_declare[] =
    "omendb DB declare FIELD:TYPE...: declares fields, in place of all that were declared before\n"
    "\n"
    "TYPE is i64, f64, bool, text, texts or any; FIELD:TYPE! is in every record, and not null.\n"
    "What is written from then on must be like that; what is stored stays as it is.\n"
    "\n" HELP_WRITES "  --strict              metadata have no other fields than these\n"
    "  --none                in place of FIELD:TYPE...: nothing is declared any "
    "more\n" HELP_COLLECTION HELP_JSON;

static const char help_put[] =
    "omendb DB put [ID] '[0.5, 0.25]': stores one record, in place of one with the same id\n"
    "\n"
    "Without ID it gets the next one, which is printed, or takes the place of the record with the\n"
    "same key and keeps its id. Key and metadata of the record before do not stay.\n"
    "\n" HELP_WRITES "  --key KEY             a text that no other record of the collection has\n"
    "  --metadata JSON       an object: '{\"lang\": \"en\", \"year\": 2021, \"tags\": [\"a\", "
    "\"b\"]}'\n" HELP_COLLECTION HELP_JSON;

static const char help_update[] =
    "omendb DB update ID '{\"year\": 2024}': changes fields of the metadata of a record\n"
    "\n"
    "The fields that are not named stay, and so do vector and key; null removes a field.\n"
    "\n" HELP_WRITES
    "  --key KEY             in place of ID: the one that has this key\n" HELP_COLLECTION HELP_JSON;

static const char help_delete[] = "omendb DB delete ID...: deletes those records that are there\n"
                                  "\n" HELP_WRITES "In place of ID...; one of\n"
                                  "  --key KEY             the one that has this key\n" HELP_FILTER
                                  "\n" HELP_COLLECTION HELP_JSON;

static const char help_export[] =
    "omendb DB export FILE: writes all records in the order of ids, as import reads them\n"
    "\n"
    "FILE is new and ends with .csv, .jsonl or .npy, or is \"-\", the standard output. Keys and\n"
    "metadata are in .jsonl only, as \"key\" and \"metadata\".\n"
    "\n" HELP_READS
    "  --ids FILE.npy        the ids, which have no place in a .npy of vectors; import --ids\n"
    "                        reads them\n"
    "  --limit N             only the first N\n" HELP_FILTER
    "  --format NAME         csv, jsonl or npy; else by the end of the name\n" HELP_COLLECTION
        HELP_READ_ONLY HELP_JSON;

static const char help_info[] =
    "omendb DB info: records, files, memory, collections, and what is taken of their limits\n"
    "\n"
    "prepared: transactions that wait for their outcome; \"omendb DB prepared\" lists them.\n"
    "calibrated: what a search for 10 without --recall is promised to find; no: --recall guesses,\n"
    "until optimize has measured (from 4,000 rows on) or calibrate was given queries.\n"
    "\n" HELP_READS "  --collection NAME     only this one\n" HELP_READ_ONLY HELP_JSON;

static const char help_collections[] = "omendb DB collections: the collections\n"
                                       "\n" HELP_READS HELP_READ_ONLY HELP_JSON;

static const char help_create[] =
    "omendb DB create COLLECTION --dim N: makes an empty collection, and the database\n"
    "\n" HELP_WRITES
    "  --dim N               elements of a vector; bits with --type b1\n" HELP_SCHEMA
    "  --ef N                candidates of a search that does not say; 64\n" HELP_JSON;

static const char help_drop[] = "omendb DB drop COLLECTION: deletes a collection with its records\n"
                                "\n" HELP_WRITES HELP_JSON;

static const char help_calibrate[] =
    "omendb DB calibrate FILE: measures recall on the rows of a file, 50 to 100,000 queries like\n"
    "those that will be asked; searches with --recall keep to it from then on\n"
    "\n"
    "They must not be records of the collection. Best made after optimize.\n"
    "\n" HELP_WRITES
    "  --skip N, --limit N   leaves out the first N rows; takes N\n" HELP_FORMAT HELP_PACKED
        HELP_COLLECTION HELP_JSON;

static const char help_prepared[] =
    "omendb DB prepared: transactions that were prepared, in the order of their names\n"
    "\n"
    "waiting: its changes are hidden, and its records locked, until \"commit\" or \"rollback\". "
    "Ask\n"
    "whoever coordinates the commit first: another outcome than that of the other participants\n"
    "tears it apart. committed, rolled back: remembered until \"forget\".\n"
    "\n" HELP_READS HELP_READ_ONLY HELP_JSON;

static const char help_commit[] =
    "omendb DB commit NAME: applies a prepared transaction\n"
    "\n"
    "That it was done already is no failure; that it was rolled back is one. The name stays until\n"
    "\"forget\". \"prepared\" lists the names.\n"
    "\n" HELP_WRITES HELP_JSON;

static const char help_rollback[] =
    "omendb DB rollback NAME: drops the changes of a prepared transaction\n"
    "\n"
    "That it was done already is no failure; that it was committed is one. The name stays until\n"
    "\"forget\". \"prepared\" lists the names.\n"
    "\n" HELP_WRITES HELP_JSON;

static const char help_forget[] =
    "omendb DB forget NAME: forgets the outcome of a prepared transaction\n"
    "\n"
    "Only when every other participant has its outcome, too. One that waits is not forgotten.\n"
    "\n" HELP_WRITES HELP_JSON;

static const char help_optimize[] =
    "omendb DB optimize: finishes graphs, drops deleted rows, merges segments\n"
    "\n" HELP_WRITES HELP_JSON;

static const char help_purge[] =
    "omendb DB purge [COLLECTION]: overwrites the bytes of deleted and replaced vectors\n"
    "\n"
    "Rewrites the files that hold some, then overwrites and removes the old ones and the log. "
    "Without\n"
    "COLLECTION it does so for all, and for what is left of dropped ones. It fails while another\n"
    "program reads the database. Backups, and file systems and devices that do not write in "
    "place,\n"
    "keep what they have; \"backup\" onto an earlier one takes it out there, without "
    "overwriting.\n"
    "\n" HELP_WRITES HELP_JSON;

static const char help_check[] =
    "omendb DB check: verifies every checksum and structure\n"
    "\n"
    "Prints a line for each problem. What to do then: restore a backup; without one \"omendb DB\n"
    "salvage PATH\" saves what is intact.\n"
    "\n" HELP_READS HELP_READ_ONLY HELP_JSON;

static const char help_backup[] =
    "omendb DB backup PATH: copies the database into a new directory, or onto an earlier backup\n"
    "\n"
    "It begins with a checkpoint. Onto an earlier backup of the same database only what is new is\n"
    "copied; every file is read and verified all the same. A backup is a database: \"omendb PATH\n"
    "check\" verifies one; to restore it, copy the directory. Once it is written to it is a "
    "database\n"
    "of its own, and no backup replaces it. A restored database is one, too: its next backup "
    "needs\n"
    "a new PATH.\n"
    "\n" HELP_WRITES HELP_JSON;

static const char help_salvage[] =
    "omendb DB salvage PATH: saves what is intact of a damaged database into a new one\n"
    "\n"
    "Prints a line for each damage: what is lost, and which deleted or replaced records may be\n"
    "back. Better than that is a backup. Nothing in DB is changed; it may be read-only.\n"
    "\n"
    "The number that is known to be lost does not count what files held of which nothing could be\n"
    "read; those are counted with their sizes. The exit status is 0 when there were no problems,\n"
    "else 1, also when all that could be read is saved: then \"ok\" of --json is true.\n"
    "\n"
    "Writes: only to PATH. No other program may have the database open for writing.\n"
    "\n" HELP_JSON;

static const char help_filters[] =
    "The conditions of --filter; \"filters\" in omendb.h has all of it\n"
    "\n"
    "  section = 'editors' AND size < 4000 AND tags IN ('c', 'rust') AND NOT essential\n"
    "  {\"section\": \"editors\", \"size\": {\"$lt\": 4000}, \"tags\": {\"$in\": [\"c\"]}}\n"
    "\n"
    "As SQL has them, joined by AND, OR, NOT and parentheses:\n"
    "  field = value         also <> < <= > >=; of an array: one of its texts is\n"
    "  field IN (a, b)       one of several; NOT IN\n"
    "  field BETWEEN a AND b a and b are inside\n"
    "  field LIKE 'prefix%'  begins so; case matters, % stands at the end only\n"
    "  field IS NULL         the record lacks the field; IS NOT NULL\n"
    "  field                 true, or a number other than 0\n"
    "\n"
    "  value                 12, -1.5e3, TRUE, FALSE, or a text in single quotes: 'it''s'\n"
    "                        or ?, ?1, :name, of which --param gives the value\n"
    "  field                 a name of the metadata, or _id or _key; \"in quotes\" where it has\n"
    "                        other characters than letters, digits, '_' and '.'\n"
    "\n"
    "As JSON, where the text begins with '{': \"field\": value, or \"field\": {operator: ...}.\n"
    "All must hold. Operators: $eq $ne $lt $lte $gt $gte $in $nin $between $prefix $contains\n"
    "$exists $not; objects are joined by {\"$and\": [...]}, {\"$or\": [...]}, {\"$not\": {...}}.\n"
    "\n"
    "What a record lacks is null, and a comparison with null is unknown: neither year = 2020 nor\n"
    "NOT year = 2020 finds records without a year.\n";

static const char *const help_topics[COMMAND_COUNT] = {
    [COMMAND_HELP] = help_overview,
    [COMMAND_IMPORT] = help_import,
    [COMMAND_EXPORT] = help_export,
    [COMMAND_SEARCH] = help_search,
    [COMMAND_GET] = help_get,
    [COMMAND_DELETE] = help_delete,
    [COMMAND_INFO] = help_info,
    [COMMAND_COLLECTIONS] = help_collections,
    [COMMAND_DROP] = help_drop,
    [COMMAND_OPTIMIZE] = help_optimize,
    [COMMAND_PURGE] = help_purge,
    [COMMAND_CHECK] = help_check,
    [COMMAND_BACKUP] = help_backup,
    [COMMAND_SALVAGE] = help_salvage,
    [COMMAND_COUNT_RECORDS] = help_count,
    [COMMAND_CREATE] = help_create,
    [COMMAND_PUT] = help_put,
    [COMMAND_CALIBRATE] = help_calibrate,
    [COMMAND_PREPARED] = help_prepared,
    [COMMAND_COMMIT] = help_commit,
    [COMMAND_ROLLBACK] = help_rollback,
    [COMMAND_FORGET] = help_forget,
    [COMMAND_FACETS] = help_facets,
    [COMMAND_LIMITS] = help_limits,
    [COMMAND_LIMIT] = help_limit,
    [COMMAND_FIELDS] = help_fields,
    [COMMAND_DECLARE] = help_declare,
    [COMMAND_UPDATE] = help_update,
    [COMMAND_FILTERS] = help_filters,
};

int command_help(struct session *session)
{
    fputs(help_topics[session->arguments.topic], session->json.file);
    return OMENDB_OK;
}

#undef HELP_COLLECTION
#undef HELP_JSON
#undef HELP_FIELDS
#undef HELP_READ_ONLY
#undef HELP_READS
#undef HELP_WRITES
#undef HELP_FILTER
#undef HELP_FORMAT
#undef HELP_PACKED
#undef HELP_SCHEMA
