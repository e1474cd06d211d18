/* filter_build.h: what the two readers of filters, of text and of JSON, share: errors that show the
 * place, and the building of leaves and nodes. Groups open and close in the order of the text; NOT
 * is pushed down at once, as it is known before what it negates. */
#ifndef OMENDB_FILTER_BUILD_H
#define OMENDB_FILTER_BUILD_H

#include "error.h"
#include "filter.h"

/* In text each parenthesis is two groups: ANDs inside of ORs. */
#define FILTER_GROUPS_MAX  (2 * (FILTER_DEPTH_MAX + 1))
#define FILTER_QUOTE_BYTES 40

struct filter_group {
    uint32_t node;
    int negated;
};

struct filter_builder {
    omendb_filter *filter;
    const char *text;
    size_t size;
    size_t bytes_used; /* of filter->bytes, which has room for all that the text can hold */
    struct filter_group groups[FILTER_GROUPS_MAX];
    uint32_t depth;
};

/* A field or a value: what a condition begins with. */
struct filter_side {
    enum filter_subject subject;
    const uint8_t *name; /* FILTER_FIELD */
    uint32_t name_size;
    struct filter_operand operand; /* FILTER_CONSTANT */
    size_t at;                     /* byte of the text */
};

/* "filter: byte <at>: <sentence>", and the text around it; returns `code`. */
OMENDB_INTERNAL int filter_fail(const struct filter_builder *builder, int code, size_t at,
                                const char *format, ...) OMENDB_PRINTF(4, 5);
/* Adds the text around the place to the present sentence. */
OMENDB_INTERNAL int filter_show_place(const struct filter_builder *builder, int code, size_t at);
/* A part of the text in quotes for such a sentence, cut where it is long. */
OMENDB_INTERNAL void filter_quote(const struct filter_builder *builder, size_t at, size_t size,
                                  char quoted[FILTER_QUOTE_BYTES]);

/* kind: as written, under all NOT that are open and `negate`. */
OMENDB_INTERNAL int filter_open_group(struct filter_builder *builder, enum filter_node_kind kind,
                                      int negate);
OMENDB_INTERNAL void filter_close_group(struct filter_builder *builder);
/* A leaf of the group that is open; its operands are to be added next. */
OMENDB_INTERNAL int filter_add_leaf(struct filter_builder *builder, const struct filter_side *side,
                                    enum filter_operator operator, int negate);
OMENDB_INTERNAL int filter_add_operand(struct filter_builder *builder,
                                       const struct filter_operand *operand);
/* The number of the parameter in *operand. */
OMENDB_INTERNAL int filter_add_parameter(struct filter_builder *builder, size_t at, uint64_t number,
                                         struct filter_operand *operand);
/* The same for a name, which lies in filter->bytes. */
OMENDB_INTERNAL int filter_add_named(struct filter_builder *builder, size_t at, const uint8_t *name,
                                     uint32_t size, struct filter_operand *operand);
/* A copy of a part of the text in filter->bytes. */
OMENDB_INTERNAL const uint8_t *filter_keep_text(struct filter_builder *builder, size_t at,
                                                size_t size);
/* _id, _key, or a field of the metadata, which begins with '_' only where it is quoted: a name in
 * the form of text that stood in quotes. The name lies in filter->bytes. */
OMENDB_INTERNAL int filter_name_side(const struct filter_builder *builder, const uint8_t *name,
                                     size_t size, int is_quoted, struct filter_side *side);
/* The number that stands there, a sign and white space before its digits: an integer, or where it
 * has a point or an exponent, or is too large, a real. */
OMENDB_INTERNAL int filter_number(const struct filter_builder *builder, size_t at, size_t size,
                                  struct filter_operand *operand);
/* Once all is read: the order of evaluation. */
OMENDB_INTERNAL int filter_build_end(struct filter_builder *builder);

/* ---- filter_parse.c, filter_json.c */
OMENDB_INTERNAL int filter_parse(struct filter_builder *builder);
OMENDB_INTERNAL int filter_json(struct filter_builder *builder);

#endif
