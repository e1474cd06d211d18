/* overlay.h: documents of rows that were updated since the row was written. A row of a memtable or
 * segment keeps its vector, its place in the graph and its key; an update gives it another document
 * from a commit on, and that is found here.
 *
 * struct overlay, of one memtable or segment, has layers:
 *   recents  documents since the last checkpoint, in memory, with their commits; the newest layer
 *            takes what is committed, those before it are frozen
 *   base     the newest document of each row at or before the commit of a checkpoint, in an ovl-
 *            file; NULL: none
 *   older    the overlay as it was before that checkpoint, while a transaction is open that reads
 *            before it; NULL: none
 * and marks: a bit for each row of a segment that has a document in any layer. So what asks for a
 * row without pays a load.
 *
 * INVARIANTS. An overlay does not change but for what its newest recent layer takes: another layer,
 * or a checkpoint, makes another overlay, which a new version of the collection holds in place of
 * this one. Who has a reference to a version may read all its overlays at the commit that it was
 * acquired for, or later; a document that was found lives as long as that version. The document
 * that a snapshot sees is the newest one at or below its commit; where there is none, that which
 * the row was written with. A merge, or the checkpoint that writes a memtable, writes rows with the
 * documents that the oldest open transaction sees; newer ones go on in the overlay of the segment
 * that it makes. So a document goes once no transaction sees it: from memory with the checkpoint
 * that follows, or when the last transaction that needs `older` has ended (space.c), from files
 * with the overlay that replaces the file, or with a merge.
 *
 * Guarded: making of layers, reserve, append and freezing by the commit mutex; finding by nothing.
 * What a checkpoint does to an overlay (freezing, replacing) it does under maintenance_mutex, too,
 * so what is frozen stays so under either.
 *
 * Atomics: `newest` and the words of marks are stored release, after the entry was entered in the
 * map of rows (release, idmap.h), which is after all of the entry was written; who reads at a
 * commit at or above the entry's loaded visible_commit after it was raised over it, and so sees
 * all three. Others may see an entry too early, and leave it out by its commit. Marks are only
 * added; `count` of them and `newest` are hints where they are read without the mutex. */
#ifndef OMENDB_OVERLAY_H
#define OMENDB_OVERLAY_H

#include "internal.h"
#include "graph.h"
#include "idmap.h"
#include "segment.h"

struct shared_file; /* database.h */

struct overlay_marks {
    _Atomic uint32_t references;
    struct memory *memory;
    uint32_t rows;
    _Atomic uint32_t count; /* of rows that are marked */
    _Atomic uint64_t word[];
};

struct overlay_block;

struct overlay_recent {
    _Atomic uint32_t references;
    struct memory *memory;
    struct rows_store entries; /* struct overlay_entry; those of one row in the order of commits */
    struct idmap rows;         /* from a row to its newest entry */
    struct overlay_block *blocks;
    _Atomic uint64_t newest; /* the largest commit; 0: nothing was appended */
    uint32_t count;          /* commit mutex, as the next three */
    uint32_t frozen;         /* 1: it takes nothing more */
    uint32_t reserving;      /* entries that the commit which is being planned appends, and */
    size_t reserving_bytes;  /* the bytes of their documents */
    size_t document_bytes;
};

struct overlay_base {
    _Atomic uint32_t references;
    struct memory *memory;
    struct shared_file *file; /* referenced */
    uint32_t part;
    uint32_t count; /* rows */
    uint64_t commit;
    struct section_range rows, commits, ends, documents;
    /* A bit a row: its document was found to be one, which takes longer than to read it; relaxed,
     * as the bytes are those of verified blocks. */
    _Atomic uint64_t checked[];
};

struct overlay {
    _Atomic uint32_t references;
    struct memory *memory;
    struct overlay_marks *marks; /* referenced; NULL: of a memtable */
    struct overlay_base *base;   /* referenced, as `older` and each of `recents` */
    struct overlay *older;
    uint64_t commit; /* who reads before it asks `older` */
    uint32_t capacity, recent_count;
    struct overlay_recent *recents[]; /* the newest last */
};

/* What an overlay has of a row at a commit. */
struct overlay_version {
    uint64_t commit;         /* that gave it; 0: the row has no other document than its own */
    const uint8_t *document; /* NULL: none; checked */
};

/* Of no layers; NULL: no memory. */
OMENDB_INTERNAL struct overlay *overlay_create(struct memory *memory, uint32_t recents);
OMENDB_INTERNAL struct overlay *overlay_reference(struct overlay *overlay); /* NULL is OK */
OMENDB_INTERNAL void overlay_release(struct overlay *overlay);              /* NULL is OK */
OMENDB_INTERNAL struct overlay_marks *overlay_marks_create(struct memory *memory, uint32_t rows);
OMENDB_INTERNAL void overlay_marks_release(struct overlay_marks *marks); /* NULL is OK */
OMENDB_INTERNAL void overlay_base_release(struct overlay_base *base);    /* NULL is OK */

/* The layers of `overlay` (NULL: none) and a new one, which takes what is committed. rows: of the
 * segment; 0: it is of a memtable. NULL: no memory. */
OMENDB_INTERNAL struct overlay *overlay_extend(struct memory *memory, struct overlay *overlay,
                                               uint32_t rows);
/* The layer that takes what is committed; NULL: there is none. */
OMENDB_INTERNAL struct overlay_recent *overlay_top(const struct overlay *overlay);
/* After it so many entries with so many bytes of documents cannot fail. */
OMENDB_INTERNAL int overlay_reserve(struct overlay_recent *recent, uint32_t entries, size_t bytes);
/* document: copied; NULL: none. Commits of one row ascend. */
OMENDB_INTERNAL void overlay_append(const struct overlay *overlay, uint32_t row, uint64_t commit,
                                    const uint8_t *document);
/* What is committed from now on goes to another layer. NULL is OK. */
OMENDB_INTERNAL void overlay_freeze(struct overlay *overlay);
/* Fills `into`, of no layers, with those of `overlay` (NULL: none) that a checkpoint at `commit`
 * did not freeze before it, over `base` (NULL: none) and `older`: references to which are taken
 * over. marks: for a segment that was a memtable: what is left is marked there. `into` has the
 * capacity for all of them. */
OMENDB_INTERNAL void overlay_settle(struct overlay *into, const struct overlay *overlay,
                                    struct overlay_marks *marks, struct overlay_base *base,
                                    struct overlay *older, uint64_t commit);
/* Its layers, and of those before it the ones that an open transaction reads; NULL: it has no
 * others, or there is no memory. Commit mutex. */
OMENDB_INTERNAL struct overlay *overlay_without_unread(omendb *db, const struct overlay *overlay);
/* Whether it has a layer. */
static inline int overlay_is_empty(const struct overlay *overlay)
{
    return overlay == NULL ||
           (overlay->base == NULL && overlay->older == NULL && overlay->recent_count == 0);
}

/* Marks the rows that have an entry after `commit`. */
OMENDB_INTERNAL void overlay_mark_recents(const struct overlay *overlay, uint64_t commit);
/* A part of an ovl- file of a segment of `rows` rows; marks: its rows are read, compared with what
 * they may be, and marked; NULL: they are known. */
OMENDB_INTERNAL int overlay_base_open(struct memory *memory, struct shared_file *file,
                                      uint32_t part, uint64_t commit, uint32_t rows,
                                      struct overlay_marks *marks, struct overlay_base **base);
/* An overlay of such a part alone; NULL where the part has no documents. */
OMENDB_INTERNAL int overlay_open(struct memory *memory, struct shared_file *file, uint32_t part,
                                 uint64_t commit, uint32_t rows, struct overlay **overlay);

/* OMENDB_CORRUPT, OMENDB_IOERR: of a base. NULL is OK. */
OMENDB_INTERNAL int overlay_find(const struct overlay *overlay, uint32_t row, uint64_t commit,
                                 struct overlay_version *found);
/* Of the rows that are marked: how many; of 64 of them a bit each, where the word is one of the
 * segment. Of segments; NULL is OK. */
static inline uint32_t overlay_count(const struct overlay *overlay)
{
    return overlay == NULL || overlay->marks == NULL
               ? 0
               : atomic_load_explicit(&overlay->marks->count, memory_order_acquire);
}
static inline uint64_t overlay_word(const struct overlay *overlay, uint32_t word)
{
    return overlay == NULL
               ? 0
               : atomic_load_explicit(&overlay->marks->word[word], memory_order_acquire);
}
/* 0: the row has no other document than its own. NULL is OK. */
static inline int overlay_may_have(const struct overlay *overlay, uint32_t row)
{
    if (overlay == NULL)
        return 0;
    return overlay->marks == NULL || ((overlay_word(overlay, row / 64) >> (row % 64)) & 1) != 0;
}
/* The next row from `row` on that is marked; UINT32_MAX: none. */
OMENDB_INTERNAL uint32_t overlay_next(const struct overlay *overlay, uint32_t row);
/* The newest commit of a document in it, 0: none; only of those in memory. NULL is OK. */
OMENDB_INTERNAL uint64_t overlay_newest(const struct overlay *overlay);
/* Documents that came after one commit, until another. NULL is OK. Commit mutex, as the next. */
OMENDB_INTERNAL uint64_t overlay_count_between(const struct overlay *overlay, uint64_t after,
                                               uint64_t until);
/* What it takes in a file, at most. NULL is OK. */
OMENDB_INTERNAL uint64_t overlay_bytes(const struct overlay *overlay);

#endif
