/* filter.h: conditions on the fields of records, compiled. A filter is written as text (SQL's
 * conditions, filter_parse.c) or as JSON (filter_json.c); omendb.h describes both. Whatever it was
 * written as, it becomes
 *
 *   leaves   "a field lies in a set of values", in the order in which they were written
 *   nodes    how AND and OR join them; NOT was pushed down into the leaves
 *
 * THREE VALUES INTO TWO. In SQL a comparison is true, false or unknown, and only true matches.
 * Above leaves that nobody negates there are only AND and OR, and what they make of true and
 * unknown is true exactly where they make true of true and false. So each leaf says whether it is
 * true, and no more. NOT swaps AND with OR and negates leaves: a negated leaf is true where what it
 * negates is false, and not where it is unknown.
 *
 * A LEAF matches a record when its field's value v
 *   is null or absent:     if null_matches
 *   is an array of texts:  if any text of it lies in the set; negated: if none does
 *   else:                  if v lies in the set; negated: if it does not
 * The set is made of points, or ranges, in the order of document.h. What makes a comparison unknown
 * beside the field's own null, a null among the operands, is in the set already: of `a IN (1,
 * NULL)` it has 1, of its negation all values, as no value makes that true.
 *
 * EVALUATION goes from leaf to leaf, each of which names the leaf that is next if it matches, and
 * the one if it does not: no stack, at most each leaf once, the first one that decides ends it.
 *
 * LIFETIME. What is read with a filter after the call that took it, pages and cursors, holds it:
 * omendb_filter_free leaves it to the last holder, and while there is one nothing is bound.
 *
 * Rejected: a program for a stack machine with three values (three times the work, and nothing for
 * an index to begin with); numbers for fields (document.h says why there are none). */
#ifndef OMENDB_FILTER_H
#define OMENDB_FILTER_H

#include "internal.h"
#include "document.h"
#include "memory.h"

#define FILTER_TEXT_MAX       (UINT32_C(1) << 20) /* bytes of a filter */
#define FILTER_DEPTH_MAX      64 /* parentheses, or objects and arrays, that are open */
#define FILTER_LEAVES_MAX     4096
#define FILTER_PARAMETERS_MAX 32766
#define FILTER_BOUND_MAX      (UINT32_C(1) << 26) /* bytes of what is bound to one parameter */

/* Of filter_leaf.if_true and if_false: no leaf is next. */
#define FILTER_MATCH UINT32_MAX
#define FILTER_MISS  (UINT32_MAX - 1)

enum filter_subject {
    FILTER_FIELD,   /* of the metadata */
    FILTER_ID,      /* of the record: never null; a number up to 2^64 - 2 */
    FILTER_KEY,     /* of the record: a text, or null */
    FILTER_CONSTANT /* no field but a value: ?1 IS NULL */
};

/* As written; what follows from it is in the set of the leaf. */
enum filter_operator {
    FILTER_EQUAL,
    FILTER_LESS,
    FILTER_LESS_OR_EQUAL,
    FILTER_GREATER,
    FILTER_GREATER_OR_EQUAL,
    FILTER_BETWEEN,
    FILTER_IN,
    FILTER_LIKE,
    FILTER_PREFIX, /* texts that begin with the operand */
    FILTER_IS,     /* null-safe: IS NULL, too */
    FILTER_TRUTH   /* no operand: true, or a number other than 0 */
};

/* A value that the filter's text has, or the number of a parameter. */
struct filter_operand {
    struct document_value value;
    uint64_t beyond;    /* an integer above INT64_MAX, exactly; `value` is then real; 0: not one */
    uint32_t parameter; /* from 1 on; 0: it is the value */
};

static inline void filter_text_operand(const uint8_t *text, uint32_t size,
                                       struct filter_operand *operand)
{
    *operand = (struct filter_operand){
        .value = {.type = DOCUMENT_TEXT, .text = text, .size = size, .count = 1}};
}

struct filter_range {
    struct document_value low, high; /* null: no bound at this side */
    uint8_t low_open, high_open;     /* the bound itself is not inside */
};

struct filter_ids {
    uint64_t first, last; /* both inside */
};

/* Where `ids` is not for subject FILTER_ID it is empty, and there the others are. */
struct filter_set {
    const struct document_value *values; /* ascending, distinct */
    const struct filter_range *ranges; /* ascending, disjoint; at most 2, and none beside values */
    const struct filter_ids *ids;      /* ascending, disjoint */
    uint32_t value_count, range_count, id_count;
    int null_matches;
    void *block; /* that holds them; what texts they point at is the filter's or a parameter's */
    size_t block_size;
};

struct filter_leaf {
    enum filter_subject subject;
    enum filter_operator operator;
    int negated;
    uint32_t if_true, if_false; /* leaves behind this one, FILTER_MATCH or FILTER_MISS */
    const uint8_t *name;        /* FILTER_FIELD */
    uint32_t name_size, name_hash;
    struct filter_set set;
    struct filter_operand constant; /* FILTER_CONSTANT: the subject */
    const uint8_t *escape;          /* FILTER_LIKE: a character, or NULL */
    uint32_t escape_size;
    size_t first_operand, operand_count;
    int is_bound;              /* parameters are among the operands */
    struct filter_set pending; /* while parameters are bound: the set that will be */
};

enum filter_node_kind { FILTER_LEAF, FILTER_AND, FILTER_OR };

/* In prefix order: behind a node come its children, each with all that is below it, up to `end`. A
 * group has two children or more, and none of its own kind. */
struct filter_node {
    enum filter_node_kind kind;
    uint32_t end;
    uint32_t leaf; /* FILTER_LEAF */
};

struct filter_parameter {
    const uint8_t *name; /* without the colon; NULL: it has a number only */
    uint32_t name_size;
    struct filter_operand bound; /* null at first */
    void *block;                 /* of the text or texts */
    size_t block_size;
};

struct omendb_filter {
    uint32_t magic;
    omendb *db;
    struct memory *memory;
    struct filter_leaf *leaves;
    struct filter_node *nodes;
    struct filter_operand *operands;
    struct filter_parameter *parameters;
    size_t leaf_count, leaf_capacity, node_count, node_capacity;
    size_t operand_count, operand_capacity, parameter_count, parameter_capacity;
    uint8_t *bytes; /* names and texts */
    size_t byte_capacity;
};

/* What filter_compile makes. The count stands beside the filter, as that is copied in parts. */
struct filter_held {
    omendb_filter filter;
    _Atomic uint32_t holders; /* the handle, and pages and cursors: relaxed up, acq_rel down */
};

/* ---- filter.c */
/* text: JSON where '{' is the first character that is not a space. OMENDB_INVALID: the sentence has
 * the place, and on two more lines the text around it with a mark below the place. */
OMENDB_INTERNAL int filter_compile(struct memory *memory, const char *text, omendb_filter **filter);
/* One holder less, the last of which frees it. NULL and half-built ones are OK. */
OMENDB_INTERNAL void filter_free(const omendb_filter *filter);
/* One holder more. NULL is OK. */
OMENDB_INTERNAL const omendb_filter *filter_hold(const omendb_filter *filter);
/* Pages and cursors that hold it. */
OMENDB_INTERNAL uint32_t filter_users(const omendb_filter *filter);
/* From 1 on; 0: no parameter has this name. A colon before it is skipped. */
OMENDB_INTERNAL int filter_parameter_index(const omendb_filter *filter, const char *name);

/* ---- filter_bind.c */
/* Makes the sets of all leaves. */
OMENDB_INTERNAL int filter_resolve(omendb_filter *filter);
OMENDB_INTERNAL void filter_free_set(struct memory *memory, struct filter_set *set);
/* Binds what is not text. Nothing changes on failure. */
OMENDB_INTERNAL int filter_bind(omendb_filter *filter, int index,
                                const struct filter_operand *operand);
OMENDB_INTERNAL int filter_bind_text(omendb_filter *filter, int index, const char *text);
OMENDB_INTERNAL int filter_bind_texts(omendb_filter *filter, int index, const char *const *texts,
                                      size_t count);
/* What is wrong with a pattern of LIKE, or NULL. prefix (NULL: not wanted) gets what texts must
 * begin with, at most `size` bytes; *is_whole: they must be that. */
OMENDB_INTERNAL const char *filter_pattern(const struct filter_leaf *leaf, const uint8_t *pattern,
                                           size_t size, uint8_t *prefix, size_t *prefix_size,
                                           int *is_whole);

/* ---- filter_match.c */
/* Whether a record matches. document: as in document.h, NULL: it has none. No allocation; any
 * number of threads at once, while none binds. */
OMENDB_INTERNAL int filter_leaf_matches(const omendb_filter *filter, const struct filter_leaf *leaf,
                                        uint64_t id, const uint8_t *document);
OMENDB_INTERNAL int filter_matches(const omendb_filter *filter, uint64_t id,
                                   const uint8_t *document);

#endif
