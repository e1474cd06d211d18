/* salvage.h: what the two halves of omendb_salvage share. salvage_rows.c reads rows out of damaged
 * segment files; salvage.c finds out what there is, and puts it into the new database. */
#ifndef OMENDB_SALVAGE_H
#define OMENDB_SALVAGE_H

#include "database.h"

/* A collection of the damaged database. */
struct salvage_collection {
    uint64_t id;
    uint64_t next_id;
    char name[256];       /* "": nothing tells it */
    omendb_schema schema; /* complete; dim 0: nothing tells it */
    int dropped;
    omendb_limits limits;
    uint8_t *declaration; /* NULL: none */
    size_t declaration_bytes;
    struct collection *target; /* in the new database */
};

/* A part of a segment file that belongs to a collection, and where its deletions are. */
struct salvage_reference {
    uint64_t collection;
    uint64_t file;
    uint64_t overlay_file; /* 0: no deletions are known */
    uint32_t part;
    uint32_t overlay_part;
    int doubtful; /* some of its deletions are not known, or may not be */
};

struct salvage_name {
    enum storage_kind kind;
    uint64_t number;
};

#define SALVAGE_LANES 2

/* An opened segment or overlay file, whose blocks are read one by one. Two runs of bytes can be
 * read side by side, each by a lane of its own. */
struct salvage_file {
    struct segment_file *file; /* NULL: closed */
    int sound;                 /* 0: its footer has a wrong checksum */
    uint64_t *reported;        /* a bit a block: known to be bad */
    size_t words;
    struct {
        uint64_t block; /* in `bytes`; UINT64_MAX: none */
        int good;
        uint8_t *bytes;
    } lanes[SALVAGE_LANES];
};

/* A prepared transaction that the logs tell of. */
struct salvage_prepared {
    char name[OMENDB_PREPARED_NAME_MAX + 1];
    uint32_t state;   /* omendb_prepared_state */
    uint8_t *changes; /* as logged; NULL after the outcome */
    size_t size;
    uint64_t commit; /* that prepared it */
};

/* Records on their way to the new database, of one collection. */
struct salvage_batch {
    struct salvage_collection *collection;
    uint32_t count, capacity;
    uint64_t *ids;
    uint8_t *vectors;
    uint8_t **documents; /* of each, NULL: none; allocated one by one */
};

struct salvage {
    struct memory memory; /* the new database has its own */
    struct storage storage;
    struct storage_file lock;
    struct database_held held_lock; /* it: a forked child lets go of it */
    omendb *db;                     /* the new one */
    void (*report)(void *context, const char *line);
    void *context;
    omendb_salvage_result *result;
    int quiet; /* nothing is reported: what is read now is read again */

    struct salvage_name *names; /* of the directory, ascending by kind and number */
    size_t name_count, name_capacity;
    struct manifest manifest;                /* number 0: none is readable */
    int by_name;                             /* segments are those that lie in the directory */
    struct salvage_collection **collections; /* as they became known; from the making of the new
                                              * ones on ascending by id */
    size_t collection_count, collection_capacity;
    struct salvage_collection **slots; /* the same by id: open addressing, half of it is free */
    size_t slot_count;
    struct salvage_reference *references; /* ascending by file and part */
    size_t reference_count, reference_capacity;
    struct salvage_file overlay; /* the one that was used last */
    uint64_t overlay_lost;       /* the one that could not be opened last; 0: none */
    struct salvage_batch batch;
    uint64_t put;                       /* records that the new database took, one by one */
    int failed;                         /* the code of the last commit to it */
    uint8_t *vector;                    /* of one row */
    uint8_t *document;                  /* likewise; DOCUMENT_BYTES_MAX */
    uint64_t sequence;                  /* of the last commit of the log; 0: not known */
    struct salvage_prepared **prepared; /* ascending by name, until they go into the new database */
    size_t prepared_count, prepared_capacity;
};

/* One line to the caller, one problem more. */
OMENDB_INTERNAL void salvage_tell(struct salvage *salvage, const char *format, ...)
    OMENDB_PRINTF(2, 3);
/* Reports the sentence of an error about a file, which is no reason to give up; OMENDB_NOMEM is. */
OMENDB_INTERNAL int salvage_error(struct salvage *salvage, int code);
/* Doubles an array. */
OMENDB_INTERNAL int salvage_grow(struct salvage *salvage, void **array, size_t *capacity,
                                 size_t count, size_t element);
OMENDB_INTERNAL struct salvage_collection *salvage_find(const struct salvage *salvage, uint64_t id);
/* Gives one record of stored type to the new database. document: checked; NULL: none.
 * OMENDB_INVALID: no such record can be. */
OMENDB_INTERNAL int salvage_put(struct salvage *salvage, struct salvage_collection *collection,
                                uint64_t id, const uint8_t *vector, const uint8_t *document);
OMENDB_INTERNAL int salvage_flush(struct salvage *salvage);
/* Counts the records of a collection of the new database. */
OMENDB_INTERNAL int salvage_count(struct collection *collection, uint64_t *count);

/* A change of records in a log; *used receives its bytes. OMENDB_CORRUPT, without a sentence: it
 * cannot be read, or nothing is known of its collection. */
OMENDB_INTERNAL int salvage_decode_records(const struct salvage *salvage, const uint8_t *payload,
                                           size_t size, struct commit_logged *logged,
                                           struct salvage_collection **collection, size_t *used);
/* Applies it to the new database. */
OMENDB_INTERNAL int salvage_apply_records(struct salvage *salvage, uint64_t log,
                                          const struct commit_logged *logged,
                                          struct salvage_collection *collection);

/* ---- salvage_prepared.c */
/* The next thing that the logs say of prepared transactions; what is committed is applied. */
OMENDB_INTERNAL int salvage_note_prepared(struct salvage *salvage, uint64_t log,
                                          const struct prepared_logged *logged);
/* When the logs are through: what waits, waits in the new database, and outcomes are remembered. */
OMENDB_INTERNAL int salvage_prepare_all(struct salvage *salvage);
OMENDB_INTERNAL void salvage_prepared_destroy(struct salvage *salvage);

/* ---- salvage_rows.c */
OMENDB_INTERNAL int salvage_file_open(struct salvage *salvage, enum storage_kind kind,
                                      uint64_t number, struct salvage_file *file);
OMENDB_INTERNAL void salvage_file_close(struct salvage *salvage, struct salvage_file *file);
/* Finds out whether all deletions of a part can be read. */
OMENDB_INTERNAL int salvage_look_at_deletions(struct salvage *salvage,
                                              struct salvage_reference *reference);
/* Gives all rows of a part that can be read to the new database. */
OMENDB_INTERNAL int salvage_part(struct salvage *salvage, struct salvage_file *file,
                                 const struct salvage_reference *reference);

#endif
