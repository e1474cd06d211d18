/* test_json.c: which texts are JSON metadata and which are not, and what its numbers and texts are.
 *
 * The lists follow the cases of the JSON Parsing Test Suite (Nicolas Seriot, "Parsing JSON is a
 * Minefield", 2016), written anew as fields of an object, since metadata is one. Where that suite
 * leaves the answer open, the answer here is the documented one. */
#include "internals.h"

#include <fenv.h>
#include <float.h>
#include <locale.h>
#include <math.h>

#include "support.h"
#include "test.h"

static struct memory memory;

/* With a NUL in between, so its size is that of the array. */
struct text {
    const char *text;
    size_t size;
};
#define TEXT(literal)                                                                              \
    {                                                                                              \
        literal, sizeof(literal) - 1                                                               \
    }

/* The code of making a document of the text; *value is that of the field "a", of which texts are
 * borrowed from the document in *document. */
static int value_of(const char *json, size_t size, uint8_t **document, size_t *document_size,
                    struct document_value *value)
{
    memory_init(&memory, NULL, 0);
    const int code = document_create(&memory, NULL, 0, json, size, document, document_size);
    document_find(*document, (const uint8_t *)"a", 1, document_hash_name((const uint8_t *)"a", 1),
                  value);
    return code;
}

static int code_of(const char *json, size_t size)
{
    uint8_t *document;
    size_t document_size;
    struct document_value value;
    const int code = value_of(json, size, &document, &document_size, &value);
    memory_free(&memory, document, document_size);
    return code;
}

static void all_are(const struct text *texts, size_t count, int expected)
{
    for (size_t i = 0; i < count; i++) {
        const int code = code_of(texts[i].text, texts[i].size);
        if (code != expected)
            fprintf(stderr, "code %d (%s) of: %s\n", code, omendb_errmsg(), texts[i].text);
        CHECK_EQ_INT(code, expected);
    }
}

TEST(what_the_standard_allows_is_read)
{
    static const struct text texts[] = {
        TEXT("{}"),
        TEXT(" { } "),
        TEXT("\t\r\n {\t\r\n \"a\"\t\r\n :\t\r\n 1\t\r\n ,\"b\":[ \"x\" , \"y\" ]\t\r\n }\t\r\n "),
        TEXT("{\"a\":[]}"),
        TEXT("{\"a\":[\"\"]}"),
        TEXT("{\"a\":[ ]}"),
        TEXT("{\"\":0}"),
        TEXT("{\"\":\"\",\"a\":\"\"}"),
        TEXT("{\"a\\u0000b\":1}"),
        TEXT("{\"a\":null,\"b\":true,\"c\":false}"),
        TEXT("{\"a\":0e1}"),
        TEXT("{\"a\":0e+1}"),
        TEXT("{\"a\":20e1}"),
        TEXT("{\"a\":-0}"),
        TEXT("{\"a\":-123}"),
        TEXT("{\"a\":-1}"),
        TEXT("{\"a\":1E22}"),
        TEXT("{\"a\":1E-2}"),
        TEXT("{\"a\":1E+2}"),
        TEXT("{\"a\":123e45}"),
        TEXT("{\"a\":123.456e78}"),
        TEXT("{\"a\":1e-2}"),
        TEXT("{\"a\":123.456789}"),
        TEXT("{\"a\":-0."
             "000000000000000000000000000000000000000000000000000000000000000000000000001}"),
        TEXT("{\"a\":\"\\u0060\\u012a\\u12AB\"}"),
        TEXT("{\"a\":\"\\uD801\\udc37\"}"),
        TEXT("{\"a\":\"\\ud83d\\ude39\\ud83d\\udc8d\"}"),
        TEXT("{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}"),
        TEXT("{\"a\":\"\\\\u0000\"}"),
        TEXT("{\"a\":\"\\u0012\"}"),
        TEXT("{\"a\":\"\\uFFFF\\uFDD0\\uDBFF\\uDFFF\"}"),
        TEXT("{\"a\":\"a/*b*/c/*d//e\"}"),
        TEXT("{\"a\":\"\x7f\"}"),
        TEXT("{\"a\":\"\xC2\x80\xDF\xBF\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\xEF\xBF\xBF\"}"),
        TEXT("{\"a\":\"\xF0\x90\x80\x80\xF4\x8F\xBF\xBF\"}"),
        TEXT("{\"a\":\"\xE2\x80\xA8\xE2\x80\xA9\xE2\x81\xA0\xEF\xBB\xBF\"}"),
        TEXT("{\"\xE2\x82\xAC\xF0\x9D\x84\x9E\":\"\xE2\x82\xAC\xF0\x9D\x84\x9E\"}"),
    };
    all_are(texts, sizeof texts / sizeof texts[0], OMENDB_OK);
}

TEST(what_is_no_json_is_refused)
{
    static const struct text texts[] = {
        TEXT(""),
        TEXT(" "),
        TEXT("\0"),
        TEXT("{\"a\":1}\0"),
        TEXT("{\"a\":1\0}"),
        TEXT("{"),
        TEXT("}"),
        TEXT("{{}}"),
        TEXT("{\"a\":1}}"),
        TEXT("{\"a\":1}{}"),
        TEXT("{\"a\":1},"),
        TEXT("{\"a\":1}#"),
        TEXT("{\"a\":1}//"),
        TEXT("{\"a\":1}/**/"),
        TEXT("{/**/}"),
        TEXT("{\"a\":/**/1}"),
        TEXT("{,}"),
        TEXT("{,\"a\":1}"),
        TEXT("{\"a\":1,}"),
        TEXT("{\"a\":1,,}"),
        TEXT("{\"a\":1,,\"b\":2}"),
        TEXT("{\"a\"}"),
        TEXT("{\"a\":}"),
        TEXT("{\"a\"::1}"),
        TEXT("{\"a\":1 2}"),
        TEXT("{\"a\":\"a\" 123}"),
        TEXT("{\"a\" \"b\"}"),
        TEXT("{\"a\",\"b\"}"),
        TEXT("{:1}"),
        TEXT("{a:1}"),
        TEXT("{'a':1}"),
        TEXT("{1:1}"),
        TEXT("{null:null,null:null}"),
        TEXT("{true:1}"),
        TEXT("{\"a\";1}"),
        TEXT("{\"a\":1;\"b\":2}"),
        TEXT("{\"a\":'x'}"),
        TEXT("{\"a\":x}"),
        TEXT("{\"a\":True}"),
        TEXT("{\"a\":nul}"),
        TEXT("{\"a\":nulll}"),
        TEXT("{\"a\":fals}"),
        TEXT("{\"a\":tru"),
        TEXT("{\"a\":undefined}"),
        TEXT("{\"a\":<null>}"),
        TEXT("{\"a\":[\"x\"}"),
        TEXT("{\"a\":[\"x\",]}"),
        TEXT("{\"a\":[,\"x\"]}"),
        TEXT("{\"a\":[,]}"),
        TEXT("{\"a\":[\"x\",,\"y\"]}"),
        TEXT("{\"a\":[\"x\" \"y\"]}"),
        TEXT("{\"a\":[\"x\":\"y\"]}"),
        TEXT("{\"a\":[\"x\"]]}"),
        TEXT("{\"a\":[\"x"),
        TEXT("{\"a\":["),
        TEXT("{\"a\":]}"),
        TEXT("\xEF\xBB\xBF{}"),
        TEXT("\xEF\xBB{}"),
        TEXT("\xFE\xFF\0{\0}"),
        TEXT("{\0}\0"),
        TEXT("{\x0C}"),
        TEXT("{\x0B}"),
        TEXT("{\xC2\xA0}"),
        TEXT("{\xE2\x81\xA0}"),
        TEXT("{\xE2\x80\x83\"a\":1}"),
        TEXT("\xE5"),
        TEXT("*"),
        TEXT("<.>"),
    };
    all_are(texts, sizeof texts / sizeof texts[0], OMENDB_INVALID);
}

TEST(what_is_json_but_not_flat_is_refused)
{
    static const struct text texts[] = {
        TEXT("[]"),
        TEXT("1"),
        TEXT("null"),
        TEXT("\"a\""),
        TEXT("{\"a\":{}}"),
        TEXT("{\"a\":{\"b\":1}}"),
        TEXT("{\"a\":[1]}"),
        TEXT("{\"a\":[null]}"),
        TEXT("{\"a\":[true]}"),
        TEXT("{\"a\":[[]]}"),
        TEXT("{\"a\":[\"x\",1]}"),
        TEXT("{\"a\":[{}]}"),
        TEXT("{\"a\":1,\"a\":1}"),
        TEXT("{\"a\":1,\"b\":2,\"\\u0061\":3}"),
        TEXT("{\"\":1,\"\":1}"),
    };
    all_are(texts, sizeof texts / sizeof texts[0], OMENDB_INVALID);
}

TEST(what_is_no_number_is_refused)
{
    static const char *const numbers[] = {"01",
                                          "-01",
                                          "00",
                                          "-012",
                                          "012",
                                          "-",
                                          "--1",
                                          "+1",
                                          "++1",
                                          "- 1",
                                          "-1.0.",
                                          "-2.",
                                          "2.e3",
                                          "2.e+3",
                                          "0.e1",
                                          ".1",
                                          "-.1",
                                          ".2e-3",
                                          "0.1.2",
                                          "1.",
                                          "1.e",
                                          "0e",
                                          "0e+",
                                          "0E",
                                          "0E+",
                                          "1.0e",
                                          "1.0e-",
                                          "1.0e+",
                                          "1eE2",
                                          "1e1.5",
                                          "1e",
                                          "0.3e",
                                          "9.e+",
                                          "1 000",
                                          "1_000",
                                          "1,5",
                                          "0x1",
                                          "0x42",
                                          "1.2a-3",
                                          "1.8011670033376514H-308",
                                          "-1x",
                                          "1ea",
                                          "0e+-1",
                                          "1+2",
                                          "NaN",
                                          "-NaN",
                                          "nan",
                                          "Inf",
                                          "+Inf",
                                          "-Inf",
                                          "inf",
                                          "Infinity",
                                          "-Infinity",
                                          "1e400",
                                          "-1e400",
                                          "1e999999999999999999999",
                                          "-123123e100000",
                                          "1.7976931348623159e308",
                                          "179769313486231580793e289",
                                          "\xEF\xBC\x91",
                                          "1f",
                                          "1L",
                                          "1d",
                                          "0b1",
                                          "0o7",
                                          "1e5x",
                                          "1e+",
                                          "--",
                                          "-e1",
                                          "e1",
                                          "-a"};
    char text[128];
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        const int size = snprintf(text, sizeof text, "{\"a\":%s}", numbers[i]);
        if (code_of(text, (size_t)size) != OMENDB_INVALID)
            fprintf(stderr, "not refused: %s\n", text);
        CHECK_EQ_INT(code_of(text, (size_t)size), OMENDB_INVALID);
    }
}

TEST(what_is_no_text_is_refused)
{
    static const struct text texts[] = {
        TEXT("\""),
        TEXT("\"a"),
        TEXT("\"\\\""),
        TEXT("\"\\\\\\\""),
        TEXT("\"\\"),
        TEXT("\"\\x00\""),
        TEXT("\"\\a\""),
        TEXT("\"\\'\""),
        TEXT("\"\\0\""),
        TEXT("\"\\ \""),
        TEXT("\"\\\0\""),
        TEXT("\"\\U0041\""),
        TEXT("\"\\u\""),
        TEXT("\"\\u0\""),
        TEXT("\"\\u00\""),
        TEXT("\"\\u00A\""),
        TEXT("\"\\u00A"),
        TEXT("\"\\u00G0\""),
        TEXT("\"\\uqqqq\""),
        TEXT("\"\\u 123\""),
        TEXT("\"\\u+123\""),
        TEXT("\"\\u-123\""),
        TEXT("\"\\u0x12\""),
        TEXT("\"\\u12_3\""),
        TEXT("\"\\u00@1\""),
        TEXT("\"\\u00`1\""),
        TEXT("\"\\u00/1\""),
        TEXT("\"\\u00:1\""),
        /* halves of surrogate pairs */
        TEXT("\"\\uD800\""),
        TEXT("\"\\uDFFF\""),
        TEXT("\"\\uDC00\\uD800\""),
        TEXT("\"\\uDC00\\uDC00\""),
        TEXT("\"\\uDFFF\\uDFFF\""),
        TEXT("\"\\uD800\\"),
        TEXT("\"\\uD800\\u\""),
        TEXT("\"\\uD800\\u1\""),
        TEXT("\"\\uD800\\u1x\""),
        TEXT("\"\\uD800\\uD800\""),
        TEXT("\"\\uD800\\uD800\\uDC00\""),
        TEXT("\"\\uD834\\uDd\""),
        TEXT("\"\\uD800\\n\""),
        TEXT("\"\\uD800abc\""),
        TEXT("\"\\uD800\\uE000\""),
        TEXT("\"\\uDBFF\\uDBFF\""),
        TEXT("\"\\ud800\\u0041\""),
        TEXT("\"\\uD888\\u1234\""),
        TEXT("\"\\uD800uDC00\""),
        TEXT("\"\\uD800\\\\uDC00\""),
        /* control characters */
        TEXT("\"\0\""),
        TEXT("\"a\0a\""),
        TEXT("\"\n\""),
        TEXT("\"\t\""),
        TEXT("\"\r\""),
        TEXT("\"\x1f\""),
        TEXT("\"12345678\x01\""),
        TEXT("\"\\\t\""),
        /* no UTF-8 */
        TEXT("\"\x80\""),
        TEXT("\"\xBF\""),
        TEXT("\"\x81\x82\""),
        TEXT("\"\xFF\""),
        TEXT("\"\xFE\""),
        TEXT("\"\xE9\""),
        TEXT("\"\xC3\""),
        TEXT("\"\xC3(\""),
        TEXT("\"\xC0\xAF\""),
        TEXT("\"\xC1\xBF\""),
        TEXT("\"\xE0\x80\xAF\""),
        TEXT("\"\xE0\x9F\xBF\""),
        TEXT("\"\xE0\xFF\""),
        TEXT("\"\xED\xA0\x80\""),
        TEXT("\"\xED\xBF\xBF\""),
        TEXT("\"\xF0\x80\x80\xAF\""),
        TEXT("\"\xF0\x8F\xBF\xBF\""),
        TEXT("\"\xF4\x90\x80\x80\""),
        TEXT("\"\xF4\xBF\xBF\xBF\""),
        TEXT("\"\xF5\x80\x80\x80\""),
        TEXT("\"\xF8\x80\x80\x80\x80\""),
        TEXT("\"\xFC\x80\x80\x80\x80\x80\""),
        TEXT("\"\xFC\x83\xBF\xBF\xBF\xBF\""),
        TEXT("\"\xE2\x82\""),
        TEXT("\"\xF0\x9D\x84\""),
        TEXT("\"\xF0\x9D\""),
        TEXT("\"\xE2\x82(\""),
        TEXT("\"\\u\xE5\""),
        TEXT("\"\\\xE5\""),
        TEXT("\"\\\xF0\x9F\x8C\x80\""),
        TEXT("\"1234567\xC3\""),
        TEXT("\"\xE6\x97\xA5\xD1\x88\xFA\""),
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        for (size_t place = 0; place < 3; place++) {
            static const char *const before[] = {"{\"a\":", "{\"a\":[\"x\",", "{"};
            static const char *const after[] = {"}", "]}", ":1}"};
            char json[128];
            size_t size = strlen(before[place]);
            memcpy(json, before[place], size);
            memcpy(json + size, texts[i].text, texts[i].size);
            size += texts[i].size;
            memcpy(json + size, after[place], strlen(after[place]));
            size += strlen(after[place]);
            if (code_of(json, size) != OMENDB_INVALID)
                fprintf(stderr, "not refused: %s\n", json);
            CHECK_EQ_INT(code_of(json, size), OMENDB_INVALID);
        }
    }
}

/* Texts are looked at eight bytes at a time. */
TEST(any_byte_at_any_place_of_a_text_is_read_as_itself_or_refused)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        for (size_t place = 0; place < 20; place++) {
            char json[] = "{\"a\":\"xxxxxxxxxxxxxxxxxxxx\"}";
            uint8_t *document;
            size_t size;
            struct document_value value;
            json[6 + place] = (char)byte;
            const int stands_for_itself = byte >= ' ' && byte < 0x80 && byte != '"' && byte != '\\';
            CHECK_EQ_INT(value_of(json, sizeof json - 1, &document, &size, &value),
                         stands_for_itself ? OMENDB_OK : OMENDB_INVALID);
            CHECK(!stands_for_itself ||
                  (value.size == 20 && memcmp(value.text, json + 6, 20) == 0));
            memory_free(&memory, document, size);
        }
    }
}

/* Every sequence of up to four bytes of those that matter is accepted iff it is UTF-8 by the
 * definition: the shortest form of numbers up to 0x10FFFF without surrogates. */
static size_t utf8_by_definition(const uint8_t *text, size_t size)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    const size_t bytes = text[0] < 0x80             ? 1
                         : (text[0] & 0xE0) == 0xC0 ? 2
                         : (text[0] & 0xF0) == 0xE0 ? 3
                         : (text[0] & 0xF8) == 0xF0 ? 4
                                                    : 0;
    if (bytes < 2 || bytes > size)
        return bytes == 1;
    uint32_t value = text[0] & (0x7Fu >> bytes);
    for (size_t i = 1; i < bytes; i++) {
        if ((text[i] & 0xC0) != 0x80)
            return 0;
        value = value << 6 | (text[i] & 0x3F);
    }
    return value < least[bytes] || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF) ? 0
                                                                                            : bytes;
}

TEST(utf8_is_what_the_definition_says)
{
    static const uint8_t later[] = {0x00, 0x22, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0,
                                    0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xF0, 0xF4, 0xFF};
    for (unsigned lead = 0; lead < 256; lead++) {
        for (unsigned rest = 0; rest < 16 * 16 * 16; rest++) {
            const uint8_t text[4] = {(uint8_t)lead, later[rest / 256], later[rest / 16 % 16],
                                     later[rest % 16]};
            for (size_t size = 1; size <= 4; size++) {
                size_t expected = 0, one = 1;
                for (; expected < size && one != 0; expected += one)
                    one = utf8_by_definition(text + expected, size - expected);
                CHECK(json_utf8_bytes(text, size) == expected);
            }
        }
    }
}

TEST(escapes_are_the_characters_that_they_name)
{
    static const struct {
        const char *json;
        struct text value;
    } cases[] = {
        {"{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}", TEXT("\"\\/\b\f\n\r\t")},
        {"{\"a\":\"\\u0000x\"}", TEXT("\0x")},
        {"{\"a\":\"\\u007f\\u0080\"}", TEXT("\x7f\xC2\x80")},
        {"{\"a\":\"\\u07FF\\u0800\"}", TEXT("\xDF\xBF\xE0\xA0\x80")},
        {"{\"a\":\"\\ud7ff\\ue000\"}", TEXT("\xED\x9F\xBF\xEE\x80\x80")},
        {"{\"a\":\"\\uFFFF\\uD800\\uDC00\"}", TEXT("\xEF\xBF\xBF\xF0\x90\x80\x80")},
        {"{\"a\":\"\\uDBFF\\uDFFFz\"}", TEXT("\xF4\x8F\xBF\xBFz")},
        {"{\"a\":\"12345678\\n12345678\\n\"}", TEXT("12345678\n12345678\n")},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t *document;
        size_t size;
        struct document_value value;
        CHECK_EQ_INT(value_of(cases[i].json, strlen(cases[i].json), &document, &size, &value),
                     OMENDB_OK);
        CHECK_EQ_INT(value.size, cases[i].value.size);
        CHECK(memcmp(value.text, cases[i].value.text, value.size) == 0);
        memory_free(&memory, document, size);
    }
}

TEST(an_error_says_at_which_byte_and_what_was_expected)
{
    static const char *const cases[][2] = {
        {"{\"a\" 1}", "metadata: byte 5: expected ':' after the name of a field, not '1'"},
        {"{\"a\":1", "metadata: byte 6: expected ',' or '}' after the value of a field, but the "
                     "text ends there"},
        {"{\"a\":1,}", "metadata: byte 7: expected the name of a field in quotes, not '}'"},
        {"{\"a\":{}}", "metadata: byte 5: expected a text, a number, true, false, null or an array "
                       "of texts, not '{'"},
        {"{\"a\":[\"x\",1]}", "metadata: byte 10: expected a text (an array is of texts only), not "
                              "'1'"},
        {"{\"a\":1,\"a\":2}", "metadata: byte 7: a second field of the same name"},
        {"{\"a\":-x}", "metadata: byte 6: expected a digit, not 'x'"},
        {"{\"a\":1e400}", "metadata: byte 5: the number is too large for a double"},
        {"{\"a\":007}", "metadata: byte 5: a number must not begin with 0 and a digit"},
        {"{\"a\":\"x\x01\"}", "metadata: byte 7: the control character 0x01 must be written as "
                              "\\u0001"},
        {"{\"a\":\"\xC3(\"}", "metadata: byte 6: not UTF-8 (0xc3)"},
        {"{\"a\":\xC3}", "metadata: byte 5: expected a text, a number, true, false, null or an "
                         "array of texts, not the byte 0xc3"},
        {"{\"a\":1} x", "metadata: byte 8: expected nothing more, not 'x'"},
        {"[]", "metadata: byte 0: expected '{': the fields of one object, not '['"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_EQ_INT(code_of(cases[i][0], strlen(cases[i][0])), OMENDB_INVALID);
        CHECK_EQ_STR(omendb_errmsg(), cases[i][1]);
    }
}

/* ------------------------------------------------------------------------------------------------
 * numbers */

static int number_of(const char *text, struct document_value *value)
{
    static char json[4096];
    uint8_t *document;
    size_t size;
    const int length = snprintf(json, sizeof json, "{\"a\":%s}", text);
    const int code = value_of(json, (size_t)length, &document, &size, value);
    memory_free(&memory, document, size);
    return code;
}

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static double double_of(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The C library's, which is correctly rounded in glibc, and whose locale is "C" here. */
static void reads_as_the_c_library_does(const char *text)
{
    struct document_value value;
    const double expected = strtod(text, NULL);
    const int code = number_of(text, &value);
    if (isinf(expected)) {
        CHECK_EQ_INT(code, OMENDB_INVALID);
        return;
    }
    CHECK_EQ_INT(code, OMENDB_OK);
    if (value.type != DOCUMENT_REAL || bits_of(value.real) != bits_of(expected))
        fprintf(stderr, "%s: %a and not %a\n", text, value.real, expected);
    CHECK(value.type == DOCUMENT_REAL && bits_of(value.real) == bits_of(expected));
}

TEST(an_integer_that_fits_stays_exact_and_what_is_written_as_a_real_stays_one)
{
    static const struct {
        const char *text;
        enum document_type type;
        int64_t integer;
        double real;
    } cases[] = {
        {"0", DOCUMENT_INTEGER, 0, 0},
        {"-0", DOCUMENT_INTEGER, 0, 0},
        {"-0.0", DOCUMENT_REAL, 0, -0.0},
        {"-0e0", DOCUMENT_REAL, 0, -0.0},
        {"1.0", DOCUMENT_REAL, 0, 1.0},
        {"1e0", DOCUMENT_REAL, 0, 1.0},
        {"100e-2", DOCUMENT_REAL, 0, 1.0},
        {"9007199254740993", DOCUMENT_INTEGER, 9007199254740993, 0},
        {"9223372036854775807", DOCUMENT_INTEGER, INT64_MAX, 0},
        {"9223372036854775808", DOCUMENT_REAL, 0, 0x1p63},
        {"-9223372036854775808", DOCUMENT_INTEGER, INT64_MIN, 0},
        {"-9223372036854775809", DOCUMENT_REAL, 0, -0x1p63},
        {"18446744073709551616", DOCUMENT_REAL, 0, 0x1p64},
        {"36893488147419103232", DOCUMENT_REAL, 0, 0x1p65},
        {"9999999999999999999", DOCUMENT_REAL, 0, 1e19},
        {"100000000000000000000", DOCUMENT_REAL, 0, 1e20},
        {"1e-400", DOCUMENT_REAL, 0, 0.0},
        {"-1e-400", DOCUMENT_REAL, 0, -0.0},
        {"123e-10000000", DOCUMENT_REAL, 0, 0.0},
        {"0e999999999999999999999", DOCUMENT_REAL, 0, 0.0},
        {"0.0000e-999999999999999999999", DOCUMENT_REAL, 0, 0.0},
    };
    struct document_value value;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        CHECK_EQ_INT(number_of(cases[i].text, &value), OMENDB_OK);
        CHECK_EQ_INT(value.type, cases[i].type);
        CHECK_EQ_INT(value.integer, cases[i].integer);
        CHECK(bits_of(value.real) == bits_of(cases[i].real));
    }
}

TEST(reals_are_rounded_correctly_where_others_were_wrong)
{
    static const char *const cases[] = {"2.2250738585072011e-308", /* on which PHP and Java hung */
                                        "2.2250738585072012e-308",
                                        "2.2250738585072014e-308",
                                        "2.225073858507201136e-308",
                                        "4.9406564584124654e-324",
                                        "2.4703282292062327e-324",
                                        "2.4703282292062328e-324",
                                        "2.47032822920623272088284396434110686182e-324",
                                        "2.47032822920623272088284396434110686183e-324",
                                        "7.4109846876186981e-324",
                                        "1.7976931348623157e308",
                                        "1.7976931348623158e308",
                                        "1.797693134862315807e308",
                                        "17976931348623157e292",
                                        "0.017976931348623157e310",
                                        "9007199254740993.0",
                                        "9007199254740992.99999999999999999",
                                        "9007199254740993.00000000000000000000000000000001",
                                        "9007199254740991.5",
                                        "9007199254740995.0",
                                        "1.00000000000000011102230246251565404236316680908203125",
                                        "1.00000000000000011102230246251565404236316680908203124",
                                        "1.00000000000000011102230246251565404236316680908203126",
                                        "0.500000000000000166533453693773481063544750213623046875",
                                        "3.518437208883201171875e13",
                                        "62.5364939768271845828",
                                        "8.10109172351e-10",
                                        "1.50000000000000011102230246251565",
                                        "9007199254740991.4999999999999999999999999999999995",
                                        "6929495644600919.5",
                                        "3.7455744005952583e15",
                                        "1e23",
                                        "8.5e22",
                                        "1e22",
                                        "1e-23",
                                        "5e-324",
                                        "123456789012345678901234567890.0",
                                        "0.1",
                                        "0.3",
                                        "1e308",
                                        "1e-308",
                                        "0.000001e314"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        reads_as_the_c_library_does(cases[i]);
}

/* value and its upper neighbour, and what lies exactly between, which has up to 768 digits; a digit
 * behind it, however far, decides. */
TEST(what_lies_between_two_doubles_is_rounded_to_even_and_a_hair_decides)
{
    struct support_random random = {support_seed(3)};
    static char text[2400];
    for (uint64_t i = support_scaled(300, 50); i > 0; i--) {
        /* the smallest normal numbers have the most digits */
        const int exponent = i % 4 == 0 ? -1074 : (int)support_below(&random, 2046) - 1074;
        const uint64_t odd = (support_next(&random) >> 11) * 2 + 1;
        /* the half is exact in the 64 bits of a long double, and in the 128 of others */
        const long double half = ldexpl((long double)odd, exponent - 1);
        if (half >= (long double)DBL_MAX || LDBL_MANT_DIG < 64)
            continue;
        snprintf(text, sizeof text, "%.1100Lf", half);
        char *end = text + strlen(text);
        while (end[-1] == '0' && end[-2] != '.')
            *--end = '\0';
        reads_as_the_c_library_does(text);
        memset(end, '0', 600);
        end[600 - support_below(&random, 600)] = '1';
        end[601] = '\0';
        reads_as_the_c_library_does(text);
    }
}

/* Whole numbers, which are not divided: the hair is the last bit of many. */
TEST(a_last_bit_behind_what_lies_between_two_doubles_decides)
{
    struct support_random random = {support_seed(7)};
    char text[128];
    for (uint64_t i = support_scaled(3000, 300); i > 0; i--) {
        const uint64_t odd = (support_next(&random) >> 11) * 2 + 1;
        const int exponent = 1 + (int)support_below(&random, 200);
        snprintf(text, sizeof text, "%.0Lf", ldexpl((long double)odd, exponent));
        if (strlen(text) < 20)
            continue;
        reads_as_the_c_library_does(text);
        char *last = text + strlen(text) - 1; /* even, as the number is */
        *last = (char)(*last + 1);
        reads_as_the_c_library_does(text);
        if (*last == '1') /* else it may borrow */
            continue;
        *last = (char)(*last - 2);
        reads_as_the_c_library_does(text);
    }
}

TEST(random_decimals_read_as_the_c_library_reads_them)
{
    struct support_random random = {support_seed(4)};
    for (uint64_t i = support_scaled(40000, 4000); i > 0; i--) {
        char text[128];
        size_t at = 0;
        const size_t digits = 1 + support_below(&random, i % 8 == 0 ? 60 : 20);
        if (support_below(&random, 2) == 0)
            text[at++] = '-';
        text[at++] = (char)('1' + support_below(&random, 9));
        const size_t point = support_below(&random, digits + 1);
        for (size_t digit = 0; digit < digits; digit++) {
            if (digit == point)
                text[at++] = '.';
            text[at++] = (char)('0' + support_below(&random, 10));
        }
        snprintf(text + at, 16, "e%d", (int)support_below(&random, 680) - 350);
        reads_as_the_c_library_does(text);
    }
}

static void is_written_and_read_back(double value)
{
    char text[DECIMAL_BYTES], shorter[64];
    struct document_value read;
    const size_t size = decimal_write(value, text);
    CHECK(size < sizeof text && strlen(text) == size);
    CHECK(strpbrk(text, ".e") != NULL);
    CHECK_EQ_INT(number_of(text, &read), OMENDB_OK);
    CHECK(read.type == DOCUMENT_REAL && bits_of(read.real) == bits_of(value));
    CHECK(strtod(text, NULL) == value);
    /* a digit less is another number, but where it is rounded away from a power of two */
    size_t digits = 0;
    for (const char *at = text; *at != '\0' && *at != 'e'; at++)
        digits += *at >= '1' && *at <= '9' ? 1 : *at == '0' && digits > 0 ? 1 : 0;
    for (const char *at = text + strcspn(text, "e"); at > text && (at[-1] == '0' || at[-1] == '.');
         at--)
        digits -= at[-1] == '0' && digits > 0 ? 1 : 0;
    if (digits > 1) {
        snprintf(shorter, sizeof shorter, "%.*e", (int)digits - 2, value);
        CHECK(strtod(shorter, NULL) != value);
    }
}

TEST(any_double_is_written_shortly_and_read_back_to_the_bit)
{
    struct support_random random = {support_seed(5)};
    static const double cases[] = {0.0,         -0.0,
                                   1.0,         -1.0,
                                   0.1,         1e15,
                                   1e16,        1e17,
                                   123456789.0, 1e-4,
                                   1e-5,        1e-6,
                                   1e-7,        5e-324,
                                   0x1p-1022,   DBL_MAX,
                                   -DBL_MAX,    0x1p53,
                                   0x1p63,      0x1p-44,
                                   1.0 / 3,     0.30000000000000004};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        is_written_and_read_back(cases[i]);
    for (uint64_t i = support_scaled(20000, 2000); i > 0; i--) {
        const double any = double_of(support_next(&random));
        if (isfinite(any))
            is_written_and_read_back(any);
        is_written_and_read_back((double)(float)support_below(&random, 1000) / 1000);
        is_written_and_read_back(double_of(support_next(&random) >> (12 + i % 52)));
    }
}

TEST(reals_are_written_as_people_write_them)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0.0, "0.0"},
                 {-0.0, "-0.0"},
                 {1.0, "1.0"},
                 {-2.5, "-2.5"},
                 {100.0, "100.0"},
                 {0.1, "0.1"},
                 {1e15, "1000000000000000.0"},
                 {1e16, "1e16"},
                 {0.00001, "0.00001"},
                 {0.000001, "1e-6"},
                 {1.25e-7, "1.25e-7"},
                 {1e300, "1e300"},
                 {5e-324, "5e-324"},
                 {123456.789, "123456.789"},
                 {0.1 + 0.2, "0.30000000000000004"}};
    char text[DECIMAL_BYTES];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        decimal_write(cases[i].value, text);
        CHECK_EQ_STR(text, cases[i].text);
    }
}

/* Values that the four modes round to different sides. */
TEST(neither_the_locale_nor_the_rounding_mode_of_the_host_matters)
{
    static const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    static const char *const locales[] = {"de_DE.UTF-8", "fr_FR.UTF-8", "ar_EG.UTF-8", "C.UTF-8"};
    struct support_random random = {support_seed(6)};
    struct document_value value;
    char text[DECIMAL_BYTES];
    for (size_t mode = 0; mode < 4; mode++) {
        setlocale(LC_ALL, locales[mode]);
        CHECK(fesetround(modes[mode]) == 0);
        CHECK(number_of("0.1", &value) == OMENDB_OK && bits_of(value.real) == 0x3fb999999999999a);
        CHECK(number_of("1e-5", &value) == OMENDB_OK && bits_of(value.real) == 0x3ee4f8b588e368f1);
        CHECK(number_of("123456789.123456789", &value) == OMENDB_OK &&
              bits_of(value.real) == 0x419d6f34547e6b75);
        for (int i = 0; i < 1000; i++) {
            const double any = double_of(support_next(&random) >> 2);
            decimal_write(any, text);
            CHECK(strspn(text, "0123456789.e-") == strlen(text));
            CHECK(number_of(text, &value) == OMENDB_OK && bits_of(value.real) == bits_of(any));
        }
    }
    fesetround(FE_TONEAREST);
    setlocale(LC_ALL, "C");
}

/* So many zeros that a wrong count of them would show, and an exponent that makes up for them. */
TEST(a_number_may_have_a_million_digits)
{
    enum { ZEROS = 1000000 };
    char *json = malloc(ZEROS + 64);
    uint8_t *document;
    size_t size;
    struct document_value value;
    CHECK(json != NULL);
    strcpy(json, "{\"a\":0.");
    memset(json + 7, '0', ZEROS);
    strcpy(json + 7 + ZEROS, "25e1000001}");
    CHECK_EQ_INT(value_of(json, strlen(json), &document, &size, &value), OMENDB_OK);
    CHECK(value.real == 2.5);
    memory_free(&memory, document, size);
    strcpy(json, "{\"a\":25");
    memset(json + 7, '0', ZEROS);
    strcpy(json + 7 + ZEROS, "e-1000001}");
    CHECK_EQ_INT(value_of(json, strlen(json), &document, &size, &value), OMENDB_OK);
    CHECK(value.real == 2.5);
    memory_free(&memory, document, size);
    memset(json + 7, '9', ZEROS);
    CHECK_EQ_INT(value_of(json, strlen(json), &document, &size, &value), OMENDB_OK);
    CHECK(value.real == 2.6);
    memory_free(&memory, document, size);
    free(json);
}

TEST_MAIN(what_the_standard_allows_is_read, what_is_no_json_is_refused,
          what_is_json_but_not_flat_is_refused, what_is_no_number_is_refused,
          what_is_no_text_is_refused, any_byte_at_any_place_of_a_text_is_read_as_itself_or_refused,
          utf8_is_what_the_definition_says, escapes_are_the_characters_that_they_name,
          an_error_says_at_which_byte_and_what_was_expected,
          an_integer_that_fits_stays_exact_and_what_is_written_as_a_real_stays_one,
          reals_are_rounded_correctly_where_others_were_wrong,
          what_lies_between_two_doubles_is_rounded_to_even_and_a_hair_decides,
          a_last_bit_behind_what_lies_between_two_doubles_decides,
          random_decimals_read_as_the_c_library_reads_them,
          any_double_is_written_shortly_and_read_back_to_the_bit,
          reals_are_written_as_people_write_them,
          neither_the_locale_nor_the_rounding_mode_of_the_host_matters,
          a_number_may_have_a_million_digits)
