/* search.c: nearest records of a vector, of stored records, or of every row of a file.
 *
 * Invariant: a vector has as many elements as the collection before the library sees it; the
 * library cannot know how long an array is. Places for hits are bounded by the records that there
 * are, not by the -k that was typed.
 *
 * Rows of a file go through omendb_search_batch in blocks, which uses all cores; with --explain one
 * by one, since only a single search can tell what it did. */
#include "commands.h"

#include <string.h>

#include "fields.h"
#include "json.h"
#include "progress.h"

#define SEARCH_BLOCK_ROWS   1024u
#define SEARCH_BLOCK_PLACES (1u << 20) /* hits of one block */
#define SEARCH_BLOCK_BYTES  (16u << 20)

struct search {
    struct session *session;
    omendb_query query;
    omendb_explain explain;
    struct reader reader; /* with --file */
    void *vectors;
    size_t block; /* rows searched at once */
    uint64_t *ids;
    float *distances;
    size_t *counts;
    struct fields fields;
    bool has_keys, has_metadata; /* some hit of the block */
    uint64_t time_us;
    uint64_t *examples; /* those of --like, then those of --unlike */
    uint64_t shown;     /* hits on the pages before */
};

static int search_check_pages(struct session *session)
{
    const struct arguments *arguments = &session->arguments;

    if (arguments->pages != 0 &&
        (arguments->file != NULL || arguments->group_by != NULL || arguments->explain)) {
        return failure_set(&session->failure, FAILURE_USAGE,
                           "--pages goes neither with --file nor --group-by nor --explain");
    }
    return OMENDB_OK;
}

static int search_check_arguments(struct session *session)
{
    const struct arguments *arguments = &session->arguments;
    const int ways = (arguments->vector != NULL) + (arguments->file != NULL) +
                     (arguments->key != NULL) + (arguments->like != NULL) +
                     (int)arguments->id_given;

    if (ways != 1) {
        return failure_set(&session->failure, FAILURE_USAGE,
                           "search for what? one of --vector '[0.5, 0.25]', --id N, --key KEY, "
                           "--like ID,ID, --file FILE");
    }
    if (arguments->file == NULL && (arguments->row_given || arguments->limit_given ||
                                    arguments->format != NULL || arguments->packed)) {
        return failure_set(&session->failure, FAILURE_USAGE,
                           "--row, --limit, --format and --packed go with --file");
    }
    if (arguments->unlike != NULL && arguments->like == NULL) {
        return failure_set(&session->failure, FAILURE_USAGE, "--unlike goes with --like");
    }
    if (arguments->group_size != 0 && arguments->group_by == NULL) {
        return failure_set(&session->failure, FAILURE_USAGE, "--group-size goes with --group-by");
    }
    return search_check_pages(session);
}

/* Ids with commas between them; `ids` has a place for each comma, and one more. */
static int search_parse_ids(struct session *session, const char *option, const char *text,
                            uint64_t *ids, size_t *count)
{
    for (*count = 0;; text++) {
        const size_t length = strcspn(text, ",");

        if (!json_parse_whole(text, length, &ids[*count]) || ids[*count] == OMENDB_ID_AUTO) {
            return failure_set(&session->failure, FAILURE_USAGE,
                               "%s: '%.*s' is no id; ids with commas between them are expected",
                               option, length < 100 ? (int)length : 100, text);
        }
        (*count)++;
        text += length;
        if (*text == '\0') {
            return OMENDB_OK;
        }
    }
}

static int search_parse_examples(struct search *search)
{
    const struct arguments *arguments = &search->session->arguments;
    const char *unlike = arguments->unlike != NULL ? arguments->unlike : "";
    omendb_query *query = &search->query;
    int code;

    if (arguments->like == NULL) {
        return OMENDB_OK;
    }
    search->examples =
        failure_allocate(&search->session->failure, strlen(arguments->like) + strlen(unlike) + 2,
                         sizeof *search->examples);
    if (search->examples == NULL) {
        return OMENDB_NOMEM;
    }
    query->positive_ids = search->examples;
    code = search_parse_ids(search->session, "--like", arguments->like, search->examples,
                            &query->positive_count);
    if (code == OMENDB_OK && arguments->unlike != NULL) {
        query->negative_ids = search->examples + query->positive_count;
        code = search_parse_ids(search->session, "--unlike", unlike,
                                search->examples + query->positive_count, &query->negative_count);
    }
    return code;
}

int command_parse_vector(struct session *session, const char *what, const char *text, float *vector)
{
    enum json_token token;
    struct json json;
    size_t count = 0;

    json_begin(&json, text, strlen(text));
    token = json_next(&json);
    if (token == JSON_ARRAY) {
        while ((token = json_next(&json)) == JSON_NUMBER) {
            float value;

            if (!json_float(&json, &value)) {
                return failure_set(&session->failure, OMENDB_INVALID,
                                   "%s: element %zu does not fit a 32-bit float", what, count);
            }
            if (count < session->schema.dim) {
                vector[count] = value;
            }
            count++;
        }
    }
    if (token != JSON_ARRAY_END || json_next(&json) != JSON_END) {
        return failure_set(&session->failure, FAILURE_USAGE,
                           "%s: %s; an array of numbers is expected: '[0.5, 0.25]'", what,
                           json.error != NULL ? json.error : "something else");
    }
    if (count != session->schema.dim) {
        return failure_set(&session->failure, OMENDB_INVALID,
                           "%s has %zu elements, collection %s holds vectors of %lu", what, count,
                           session->name, (unsigned long)session->schema.dim);
    }
    return OMENDB_OK;
}

int command_check_rows(struct session *session, const struct reader *reader, uint32_t *vector_type)
{
    const bool packed = session->arguments.packed;
    const uint32_t elements = packed ? (session->schema.dim + 7) / 8 : session->schema.dim;

    if (packed && reader->scalar != OMENDB_U8) {
        return failure_set(&session->failure, FAILURE_USAGE,
                           "--packed: rows of bytes are expected (npy of u1, bvecs, u8bin)");
    }
    *vector_type = packed ? OMENDB_B1 : (uint32_t)reader->scalar;
    if (elements == reader->dim) {
        return OMENDB_OK;
    }
    return failure_set(&session->failure, OMENDB_MISMATCH,
                       "%s: rows of %lu elements, but collection %s holds vectors of %lu",
                       reader->path, (unsigned long)reader->dim, session->name,
                       (unsigned long)session->schema.dim);
}

static void search_set_query(struct search *search, uint64_t records)
{
    const struct arguments *arguments = &search->session->arguments;
    const uint64_t k = arguments->k != 0 ? arguments->k : 10;

    omendb_query_init(&search->query);
    search->query.k = (size_t)(k < records || records == 0 ? k : records);
    search->query.k = records == 0 ? 1 : search->query.k;
    search->query.ef = (uint32_t)arguments->ef;
    search->query.recall = arguments->recall;
    search->query.stretch = arguments->stretch;
    search->query.exact = arguments->exact;
    search->query.use_radius = arguments->radius_given;
    search->query.radius = arguments->radius;
    if (arguments->id_given) {
        search->query.id = arguments->id;
    }
    search->query.key = arguments->key;
    search->query.group_by = arguments->group_by;
    search->query.group_size = (size_t)arguments->group_size;
    search->query.filter = search->session->filter;
    search->explain.struct_size = sizeof search->explain;
    search->query.explain = arguments->explain ? &search->explain : NULL;
}

static int search_allocate(struct search *search)
{
    const struct arguments *arguments = &search->session->arguments;
    struct failure *failure = &search->session->failure;
    size_t bytes = search->session->schema.dim * sizeof(float);

    search->block = 1;
    if (arguments->file != NULL && !arguments->row_given && !arguments->explain) {
        bytes = reader_vector_bytes(&search->reader);
        search->block = SEARCH_BLOCK_PLACES / search->query.k;
        search->block =
            search->block < SEARCH_BLOCK_BYTES / bytes ? search->block : SEARCH_BLOCK_BYTES / bytes;
        search->block = search->block < SEARCH_BLOCK_ROWS ? search->block : SEARCH_BLOCK_ROWS;
        search->block = search->block > 0 ? search->block : 1;
    }
    search->vectors = failure_allocate(failure, search->block, bytes);
    search->counts = failure_allocate(failure, search->block, sizeof *search->counts);
    search->ids = failure_allocate(failure, search->block * search->query.k, sizeof *search->ids);
    search->distances =
        failure_allocate(failure, search->block * search->query.k, sizeof *search->distances);
    return failure->code;
}

/* Printing */

static void search_print_explain_json(struct output_json *json, const omendb_explain *explain)
{
    output_open(json, "explain", '{');
    output_whole(json, "graph_rows", explain->graph_rows);
    output_whole(json, "scanned_rows", explain->scanned_rows);
    output_whole(json, "expanded", explain->expanded);
    output_whole(json, "distances", explain->distances);
    output_whole(json, "segments", explain->segments);
    output_whole(json, "time_us", explain->time_us);
    output_float(json, "recall", explain->recall);
    output_whole(json, "ef", explain->ef);
    output_whole(json, "warnings", explain->warnings);
    output_float(json, "selectivity", explain->selectivity);
    output_whole(json, "path", explain->path);
    output_close(json, '}');
}

/* Reads key and metadata of every hit, so that printing them cannot fail, and tells which of them
 * there are. */
static int search_look_at_fields(struct search *search, size_t count)
{
    size_t row, i;
    int code = OMENDB_OK;

    search->has_keys = search->has_metadata = false;
    for (row = 0; row < count; row++) {
        for (i = 0; i < search->counts[row] && code == OMENDB_OK; i++) {
            code = fields_read(search->session, search->ids[row * search->query.k + i],
                               &search->fields);
            if (code == OMENDB_OK) {
                search->has_keys = search->has_keys || fields_have_key(&search->fields);
                search->has_metadata =
                    search->has_metadata || fields_have_metadata(&search->fields);
            }
        }
    }
    return code;
}

static void search_print_json(struct search *search, size_t row, uint64_t number)
{
    struct output_json *json = &search->session->json;
    const size_t first = row * search->query.k;
    size_t i;

    output_open(json, NULL, '{');
    if (search->session->arguments.file != NULL) {
        output_whole(json, "row", number);
    } else if (search->session->arguments.pages != 0) {
        output_whole(json, "page", number);
    }
    output_open(json, "hits", '[');
    for (i = 0; i < search->counts[row]; i++) {
        output_open(json, NULL, '{');
        output_whole(json, "id", search->ids[first + i]);
        output_float(json, "distance", search->distances[first + i]);
        if (fields_read(search->session, search->ids[first + i], &search->fields) == OMENDB_OK) {
            fields_print_json(json, &search->fields);
        }
        output_close(json, '}');
    }
    output_close(json, ']');
    if (search->query.explain != NULL) {
        search_print_explain_json(json, &search->explain);
    }
    output_close(json, '}');
}

static void search_print_recall(FILE *file, const omendb_explain *explain)
{
    char promised[OUTPUT_TEXT_BYTES];

    fprintf(file, "ef up to %llu, promised recall %s%s%s%s\n", (unsigned long long)explain->ef,
            explain->recall > 0 ? output_format_float(explain->recall, promised) : "unknown",
            (explain->warnings & OMENDB_EXPLAIN_UNCALIBRATED) != 0
                ? "; some graphs were walked with an effort that was not measured"
                : "",
            (explain->warnings & OMENDB_EXPLAIN_RECALL_BEYOND) != 0
                ? "; more is asked than was measured"
                : "",
            (explain->warnings & OMENDB_EXPLAIN_K_BEYOND) != 0 ? "; k is above what was measured"
                                                               : "");
}

static void search_print_explain(FILE *file, const omendb_explain *explain)
{
    const char *separator = "";
    char text[OUTPUT_TEXT_BYTES], expanded[OUTPUT_TEXT_BYTES];

    if (explain->graph_rows != 0) {
        fprintf(file, "walked a graph of %s row%s, read the links of %s",
                output_format_count(explain->graph_rows, text), explain->graph_rows == 1 ? "" : "s",
                output_format_count(explain->expanded, expanded));
        separator = ", ";
    }
    if (explain->scanned_rows != 0) {
        fprintf(file, "%scompared %s one by one", separator,
                output_format_count(explain->scanned_rows, text));
        separator = ", ";
    }
    fprintf(file, "%s%s distance%s, %llu segment%s, %s\n", *separator != '\0' ? ";\n" : "",
            output_format_count(explain->distances, text), explain->distances == 1 ? "" : "s",
            (unsigned long long)explain->segments, explain->segments == 1 ? "" : "s",
            output_format_time(explain->time_us, expanded));
    if (explain->ef != 0) {
        search_print_recall(file, explain);
    }
}

/* The columns that the records have; in the order of search_print_table. */
static const char *search_titles(const struct search *search)
{
    static const char *const titles[] = {">rank|>id|>distance", ">rank|>id|>distance|key",
                                         ">rank|>id|>distance|metadata",
                                         ">rank|>id|>distance|key|metadata"};

    return titles[(search->has_keys ? 1 : 0) + (search->has_metadata ? 2 : 0)];
}

static void search_add_fields(struct search *search, struct output_table *table, uint64_t id)
{
    const bool there = fields_read(search->session, id, &search->fields) == OMENDB_OK;

    if (search->has_keys) {
        output_table_cell(table, there ? search->fields.key : "");
    }
    if (search->has_metadata) {
        output_table_cell(
            table, there && fields_have_metadata(&search->fields) ? search->fields.metadata : "");
    }
}

static void search_print_table(struct search *search, size_t row, uint64_t number)
{
    const size_t first = row * search->query.k;
    FILE *file = search->session->json.file;
    struct output_table table;
    char text[OUTPUT_TEXT_BYTES];
    size_t i;

    if (search->session->arguments.file != NULL) {
        fprintf(file, "row %llu\n", (unsigned long long)number);
    } else if (search->session->arguments.pages != 0) {
        fprintf(file, "page %llu\n", (unsigned long long)number);
    }
    output_table_begin(&table, search_titles(search), &search->session->failure);
    for (i = 0; i < search->counts[row]; i++) {
        snprintf(text, sizeof text, "%llu", (unsigned long long)search->shown + i + 1);
        output_table_cell(&table, text);
        snprintf(text, sizeof text, "%llu", (unsigned long long)search->ids[first + i]);
        output_table_cell(&table, text);
        output_table_cell(&table, output_format_float(search->distances[first + i], text));
        search_add_fields(search, &table, search->ids[first + i]);
    }
    output_table_print(&table, file);
    if (search->session->arguments.file == NULL && search->session->arguments.pages == 0) {
        fprintf(file, "%zu hit%s in %s\n", search->counts[row], search->counts[row] == 1 ? "" : "s",
                output_format_time(search->time_us, text));
    }
    if (search->query.explain != NULL) {
        search_print_explain(file, &search->explain);
    }
    if (search->query.explain != NULL && search->query.filter != NULL) {
        fprintf(file, "share of the records that match the filter: %s\n",
                output_format_float(search->explain.selectivity, text));
    }
    if (search->session->arguments.file != NULL || search->session->arguments.pages != 0) {
        putc('\n', file);
    }
}

/* The hits of `count` queries; the first is number `number` of the file, or of the pages. */
static int search_print(struct search *search, size_t count, uint64_t number)
{
    size_t i;
    int code = search_look_at_fields(search, count);

    for (i = 0; i < count && code == OMENDB_OK; i++) {
        if (search->session->arguments.json) {
            search_print_json(search, i, number + i);
        } else {
            search_print_table(search, i, number + i);
        }
    }
    return code == OMENDB_OK ? search->session->failure.code : code;
}

/* Searching */

/* Of --timeout, what the searches before have left. */
static void search_set_timeout(struct search *search)
{
    const uint64_t timeout_us = 1000 * search->session->arguments.timeout_ms;

    if (timeout_us != 0) {
        search->query.timeout_us = timeout_us > search->time_us ? timeout_us - search->time_us : 1;
    }
}

/* After a call that searched from `start_us` on. */
static int search_result(struct search *search, uint64_t start_us, int code)
{
    struct session *session = search->session;

    search->time_us += progress_now_us() - start_us;
    if (code == OMENDB_TIMEOUT) {
        return failure_set(&session->failure, code, "not found within --timeout %llu ms",
                           (unsigned long long)session->arguments.timeout_ms);
    }
    return session_result(session, code);
}

/* Searches for `count` vectors and prints the hits; the first is row `number` of the file. */
static int search_block(struct search *search, size_t count, uint64_t number)
{
    struct session *session = search->session;
    const uint64_t start_us = progress_now_us();
    int code;

    search_set_timeout(search);
    if (search->block == 1) {
        code = omendb_search(session->collection, NULL, &search->query, search->ids,
                             search->distances, search->counts);
    } else {
        code = omendb_search_batch(session->collection, NULL, &search->query, search->vectors,
                                   count, search->ids, search->distances, search->counts);
    }
    code = search_result(search, start_us, code);
    return code == OMENDB_OK ? search_print(search, count, number) : code;
}

static int search_turn_pages(struct search *search, omendb_pages *pages)
{
    struct session *session = search->session;
    uint64_t page;

    for (page = 1; page <= session->arguments.pages; page++) {
        const uint64_t start_us = progress_now_us();
        int code;

        search_set_timeout(search);
        code = omendb_pages_next(pages, search->query.k, search->query.timeout_us, search->ids,
                                 search->distances, search->counts);
        if (code == OMENDB_DONE) {
            break;
        }
        code = search_result(search, start_us, code);
        if (code == OMENDB_OK) {
            code = search_print(search, 1, page);
        }
        if (code != OMENDB_OK) {
            return code;
        }
        search->shown += search->counts[0];
    }
    return OMENDB_OK;
}

static int search_pages(struct search *search)
{
    struct session *session = search->session;
    char hits[OUTPUT_TEXT_BYTES], time[OUTPUT_TEXT_BYTES];
    omendb_pages *pages;
    int code = session_result(session,
                              omendb_pages_open(session->collection, NULL, &search->query, &pages));

    if (code == OMENDB_OK) {
        code = search_turn_pages(search, pages);
    }
    omendb_pages_close(pages);
    if (code == OMENDB_OK && !session->arguments.json) {
        fprintf(session->json.file, "%s hit%s in %s\n", output_format_count(search->shown, hits),
                search->shown == 1 ? "" : "s", output_format_time(search->time_us, time));
    }
    return code;
}

static int search_file(struct search *search)
{
    const struct arguments *arguments = &search->session->arguments;
    const uint64_t limit = arguments->row_given     ? 1
                           : arguments->limit_given ? arguments->limit
                                                    : UINT64_MAX;
    uint64_t done = 0, unused_id;
    uint64_t *ids = search->reader.has_ids
                        ? failure_allocate(&search->session->failure, search->block, sizeof *ids)
                        : &unused_id;
    char text[OUTPUT_TEXT_BYTES], time[OUTPUT_TEXT_BYTES];
    size_t count = 1;
    int code = ids == NULL ? OMENDB_NOMEM : reader_skip(&search->reader, arguments->row);

    while (code == OMENDB_OK && count != 0) {
        const size_t wanted = limit - done < search->block ? (size_t)(limit - done) : search->block;

        code = reader_next(&search->reader, wanted, ids, search->vectors, NULL, &count);
        if (code == OMENDB_OK && count != 0) {
            code = search_block(search, count, arguments->row + done);
            done += count;
        }
    }
    if (ids != &unused_id) {
        failure_release(ids);
    }
    if (code == OMENDB_OK && arguments->row_given && done == 0) {
        code = failure_set(&search->session->failure, OMENDB_INVALID, "%s: there is no row %llu",
                           search->reader.path, (unsigned long long)arguments->row);
    }
    if (code == OMENDB_OK && !arguments->json) {
        fprintf(search->session->json.file, "%s searches in %s\n", output_format_count(done, text),
                output_format_time(search->time_us, time));
    }
    return code;
}

static int search_run(struct search *search)
{
    const struct arguments *arguments = &search->session->arguments;
    uint64_t records = 0;
    int code =
        session_result(search->session, omendb_count(search->session->collection, NULL, &records));

    if (code != OMENDB_OK) {
        return code;
    }
    search_set_query(search, records);
    if (arguments->file != NULL) {
        code = command_check_rows(search->session, &search->reader, &search->query.vector_type);
    }
    if (code == OMENDB_OK) {
        code = search_allocate(search);
    }
    if (code == OMENDB_OK && arguments->vector != NULL) {
        code =
            command_parse_vector(search->session, "--vector", arguments->vector, search->vectors);
    }
    if (code == OMENDB_OK) {
        code = search_parse_examples(search);
    }
    if (code != OMENDB_OK) {
        return code;
    }
    if (arguments->vector != NULL || arguments->file != NULL) {
        search->query.vector = search->vectors;
    }
    return arguments->file != NULL ? search_file(search)
           : arguments->pages != 0 ? search_pages(search)
                                   : search_block(search, 1, 0);
}

int command_search(struct session *session)
{
    struct search search = {0};
    int code = search_check_arguments(session);

    search.session = session;
    if (code == OMENDB_OK && session->arguments.file != NULL) {
        code = reader_open(&search.reader, session->arguments.file, session->arguments.format,
                           &session->failure);
    }
    if (code == OMENDB_OK) {
        code = fields_choose(session, &search.fields);
    }
    if (code == OMENDB_OK) {
        code = session_open(session, SESSION_READ);
    }
    if (code == OMENDB_OK) {
        code = session_open_collection(session);
    }
    if (code == OMENDB_OK) {
        code = session_compile_filter(session);
    }
    if (code == OMENDB_OK) {
        code = search_run(&search);
    }
    fields_release(&search.fields);
    failure_release(search.vectors);
    failure_release(search.ids);
    failure_release(search.distances);
    failure_release(search.counts);
    failure_release(search.examples);
    reader_close(&search.reader);
    return code;
}

#undef SEARCH_BLOCK_ROWS
#undef SEARCH_BLOCK_PLACES
#undef SEARCH_BLOCK_BYTES
