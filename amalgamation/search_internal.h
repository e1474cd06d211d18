/* search_internal.h: what the five modules of the search share: one source of rows, a walk under a
 * predicate, and what they ask of each other. Each uses only those before it:
 *
 *   search_source.c   one source: what is visible, what matches, what the columns list
 *   search_plan.c     what a walk and a scan of it cost, and which of them is made
 *   search_scan.c     its nearest rows
 *   search_each.c     all records that match, of all sources
 *   search.c          one query over all sources
 *
 * What the rest of the engine calls stands in database.h. */
#ifndef OMENDB_SEARCH_INTERNAL_H
#define OMENDB_SEARCH_INTERNAL_H

#include "database.h"

/* Hits of a walk over codes that are compared again by their vectors: codes of 8 bits misplace a
 * neighbour by few places. */
#define SEARCH_RERANK(k) (3 * (k) + 20)
#define SEARCH_SCAN_RUN  65536 /* rows between looks at the clock */

/* One source of rows, whatever it is. */
struct search_source {
    struct graph_view view;          /* the vectors; count = rows that can be scanned */
    struct graph_view walk;          /* of indexed rows, maybe over codes */
    struct graph_view tail;          /* as walk, but for all rows */
    const struct code_format *codes; /* NULL: none */
    int codes_are_exact;
    uint32_t indexed;   /* the first ones, which can be walked */
    uint32_t row_limit; /* rows at or beyond are not visible */
    uint64_t commit;
    int hides;                           /* some rows below row_limit may not be visible */
    const struct search_request *hiding; /* its transaction hides rows; NULL: it is not asked */
    const struct search_predicate *predicate; /* NULL: all match, or `chosen` tells */
    struct matches *matches;                  /* its answers */
    struct scratch_answers *kept;             /* with them, where they are kept; or NULL */
    struct column_filter *plan;               /* its filter; NULL: there is none */
    const uint64_t *chosen;                   /* NULL, or a bit for each row that matches, */
    uint32_t chosen_count;                    /* of which so many do */
    const struct tombstones *tombstones;
    struct overlay *overlay;          /* NULL: all rows have the documents they were written with */
    const struct begin_array *begins; /* NULL: all rows below row_limit have begun */
    struct memtable *memtable;
    struct segment *segment;
};

/* ---- search_source.c */
/* Memtable number `index` of the version; without a predicate: all that is visible matches. */
OMENDB_INTERNAL void search_memtable_source(const struct search_request *request, uint32_t index,
                                            struct search_source *source);
/* The same of a segment. */
OMENDB_INTERNAL void search_segment_source(const struct search_request *request, uint32_t index,
                                           struct search_source *source);
/* The id of a row; of a segment it may be unreadable. */
OMENDB_INTERNAL int search_source_id(const struct search_source *source, uint32_t row,
                                     uint64_t *id);
/* Whether a row is there at the commit, and not hidden by the transaction. As graph_filter.visible;
 * context: the source. */
OMENDB_INTERNAL int search_visible(const void *context, uint32_t row);
/* The same, and whether the predicate lets it through, whose answer is kept. */
OMENDB_INTERNAL int search_visible_match(const void *context, uint32_t row);
/* Whether the predicate (NULL: all match) lets a record through that is in no source. */
OMENDB_INTERNAL int search_record_matches(const struct search_predicate *predicate, uint64_t id,
                                          const uint8_t *document);
/* Whether the predicate lets the row through. One that cannot be read counts as a match: where its
 * id cannot be, naming it fails; where its document cannot be, the plan says so in the end. */
OMENDB_INTERNAL int search_row_matches(const struct search_source *source, uint32_t row);
/* Asks the predicate, if there is one, of rows [first, last). */
OMENDB_INTERNAL void search_match_rows(const struct search_source *source, uint32_t first,
                                       uint32_t last);
/* What a walk may return. */
OMENDB_INTERNAL struct graph_filter search_filter(const struct search_source *source);
/* For rows of which search_match_rows has asked. */
OMENDB_INTERNAL struct graph_filter search_scan_filter(const struct search_source *source);
/* At most so many rows match: those of which the columns tell, and those that were updated, of
 * which they do not; UINT32_MAX: not known. */
OMENDB_INTERNAL uint32_t search_most(const struct search_source *source);
/* The filter as it is for the rows of the source. */
OMENDB_INTERNAL int search_make_plan_of_filter(struct search_source *source, struct memory *memory,
                                               struct column_filter *plan);
/* A bit for each row that may match, where search_most knows how many. *exact: 1: all of them match
 * but those of search_updated_word. */
OMENDB_INTERNAL int search_list(const struct search_source *source, uint64_t **bits, int *exact);
/* All that match are known: nothing is left to ask. */
OMENDB_INTERNAL void search_know_matches(struct search_source *source);
/* Asks of the visible rows that are listed; of all others the columns tell that they do not match.
 * From then on those that match are known. */
OMENDB_INTERNAL int search_choose_listed(const struct search_request *request,
                                         struct search_source *source);

/* ---- search_plan.c */
/* A walk under a predicate. */
struct search_look {
    const struct search_source *source;
    uint32_t rows; /* that it may return, or hide */
    size_t k;
    size_t work; /* candidates that it would keep without */
    double cost; /* distances that it would compute without */
    int probes;  /* comparing all that match is less, unless many of them are near the query */
    uint64_t at; /* distances after which it is looked at first */
    int looked;
    double share; /* of the rows, those that match */
};
/* How many records the request leaves out by id. */
OMENDB_INTERNAL size_t search_excluded_count(const struct search_request *request);
/* The effort for one source, whatever was asked, and what it promises: recall 0 where no curve
 * tells. With a stretch ef is only a cap, far above what is kept. */
OMENDB_INTERNAL void search_effort(const struct search_request *request,
                                   const struct search_plan *plan,
                                   const struct search_source *source, size_t k,
                                   struct calibration_answer *answer);
/* Whether a walk is not worth it. Where the transaction hides most rows, a walk meets many for each
 * that it may return. */
OMENDB_INTERNAL int search_is_small(const struct search_request *request, uint32_t rows,
                                    size_t work);
/* Whether so many rows of a batch's answers are put together: they are few, and all in the graph.
 */
OMENDB_INTERNAL int search_gathers(const struct search_source *source, uint32_t rows,
                                   size_t stride);
/* Whether a scan goes through what the columns list, rather than test all rows. */
OMENDB_INTERNAL int search_lists_part(const struct search_source *source);
/* As graph_effort.look. Where far fewer match near the query than elsewhere, what the sample
 * promises is doubtful, and the walk gets less. */
OMENDB_INTERNAL uint64_t search_look(void *context, const struct graph_progress *progress);
/* After how many distances a walk is looked at; 0: it is not worth beginning. Where comparing all
 * that match takes long, a walk is tried first: they may be about the query. */
OMENDB_INTERNAL uint64_t search_first_look(struct search_look *look);
/* Of all rows those that match, as so many of them tell; 0: all. */
OMENDB_INTERNAL double search_share(const struct search_source *source,
                                    const struct search_look *look, uint32_t *sample);
/* Gives the source the predicate of the request, if it has one, with the answers that are kept for
 * the batch; asks of the listed rows at once where these are few. */
OMENDB_INTERNAL int search_begin_predicate(const struct search_request *request,
                                           struct scratch *scratch,
                                           const struct calibration_answer *answer,
                                           struct search_source *source);
/* What the source adds to the shares of all. */
OMENDB_INTERNAL void search_tell_matches(const struct search_request *request,
                                         const struct search_source *source,
                                         const struct search_look *look, int scanned,
                                         omendb_explain *explain);

/* ---- search_scan.c */
/* So many rows more than k does a scan of all rows of a source keep, for those at the distance of
 * the k-th. */
OMENDB_INTERNAL size_t search_ties(const struct search_request *request, size_t k);
/* The k nearest rows of a source into scratch->hits; with search_ties more where all were compared.
 */
OMENDB_INTERNAL int search_rows(const struct search_request *request, struct search_source *source,
                                struct scratch *scratch, size_t k,
                                const struct calibration_answer *answer, size_t *count,
                                struct graph_counters *counters, omendb_explain *explain);

#endif
