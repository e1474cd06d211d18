/* json.c: see json.h. Nearly all bytes of JSON in practice are those of texts without escapes: they
 * are looked at eight at a time and copied as they are. */
#include "json.h"

#include "decimal.h"
#include "error.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define JSON_EACH_BYTE UINT64_C(0x0101010101010101)
#define JSON_HIGH_BITS UINT64_C(0x8080808080808080)

/* ------------------------------------------------------------------------------------------------
 * UTF-8 */

/* What bytes may come second after this first one, and how many there are in all (Unicode 15, table
 * 3-7). It leaves out what is longer than needed, surrogates, and what is above U+10FFFF. */
static size_t json_utf8_shape(uint8_t lead, uint8_t *least, uint8_t *most)
{
    *least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (lead < 0x80)
        return 1;
    if (lead < 0xC2 || lead > 0xF4)
        return 0;
    return lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

/* Bytes of the character that begins here; 0: none does. */
static size_t json_utf8_character(const uint8_t *text, size_t size)
{
    uint8_t least, most;
    const size_t bytes = json_utf8_shape(text[0], &least, &most);
    if (bytes < 2 || bytes > size)
        return bytes == 1;
    if (text[1] < least || text[1] > most)
        return 0;
    for (size_t i = 2; i < bytes; i++)
        if ((text[i] & 0xC0) != 0x80)
            return 0;
    return bytes;
}

OMENDB_INTERNAL size_t json_utf8_bytes(const uint8_t *text, size_t size)
{
    size_t at = 0;
    while (at < size) {
        uint64_t eight;
        for (; size - at >= sizeof eight; at += sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if ((eight & JSON_HIGH_BITS) != 0)
                break;
        }
        const size_t bytes = at < size ? json_utf8_character(text + at, size - at) : 0;
        if (bytes == 0)
            break;
        at += bytes;
    }
    return at;
}

/* Writes a character, no surrogate, of at most 0x10FFFF; returns its bytes. */
static size_t json_utf8_put(uint32_t character, uint8_t out[4])
{
    static const uint8_t leads[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    if (character < 0x80) {
        out[0] = (uint8_t)character;
        return 1;
    }
    const size_t bytes = character < 0x800 ? 2 : character < 0x10000 ? 3 : 4;
    for (size_t i = bytes - 1; i > 0; i--, character >>= 6)
        out[i] = (uint8_t)(0x80 | (character & 0x3F));
    out[0] = (uint8_t)(leads[bytes] | character);
    return bytes;
}

/* ------------------------------------------------------------------------------------------------
 * reading */

OMENDB_INTERNAL void json_begin(struct json_reader *reader, const char *about, const void *text,
                                size_t size)
{
    *reader = (struct json_reader){about, text, size, 0};
}

OMENDB_INTERNAL int json_next(struct json_reader *reader)
{
    for (; reader->at < reader->size; reader->at++) {
        const uint8_t byte = reader->text[reader->at];
        if (byte != ' ' && byte != '\n' && byte != '\r' && byte != '\t')
            return byte;
    }
    return -1;
}

OMENDB_INTERNAL int json_expected(const struct json_reader *reader, size_t at, const char *what)
{
    if (at >= reader->size)
        return error_set(OMENDB_INVALID, "%s: byte %zu: expected %s, but the text ends there",
                         reader->about, at, what);
    const uint8_t byte = reader->text[at];
    if (byte > ' ' && byte < 0x7F)
        return error_set(OMENDB_INVALID, "%s: byte %zu: expected %s, not '%c'", reader->about, at,
                         what, byte);
    return error_set(OMENDB_INVALID, "%s: byte %zu: expected %s, not the byte 0x%02x",
                     reader->about, at, what, byte);
}

OMENDB_INTERNAL int json_take(struct json_reader *reader, char byte, const char *what)
{
    if (json_next(reader) != byte)
        return json_expected(reader, reader->at, what);
    reader->at++;
    return OMENDB_OK;
}

OMENDB_INTERNAL int json_take_word(struct json_reader *reader, const char *word)
{
    char what[16];
    for (size_t i = 0; word[i] != '\0'; i++) {
        const size_t at = reader->at + i;
        if (at < reader->size && reader->text[at] == (uint8_t)word[i])
            continue;
        snprintf(what, sizeof what, "'%s'", word);
        return json_expected(reader, at, what);
    }
    reader->at += strlen(word);
    return OMENDB_OK;
}

OMENDB_INTERNAL int json_take_end(struct json_reader *reader)
{
    if (json_next(reader) >= 0)
        return json_expected(reader, reader->at, "nothing more");
    return OMENDB_OK;
}

/* ------------------------------------------------------------------------------------------------
 * numbers */

static int json_is_digit(const struct json_reader *reader)
{
    return reader->at < reader->size && reader->text[reader->at] >= '0' &&
           reader->text[reader->at] <= '9';
}

static int json_is(const struct json_reader *reader, char byte)
{
    return reader->at < reader->size && reader->text[reader->at] == (uint8_t)byte;
}

/* Takes one digit or more. */
static int json_take_digits(struct json_reader *reader, const uint8_t **digits, size_t *count)
{
    const size_t start = reader->at;
    if (!json_is_digit(reader))
        return json_expected(reader, reader->at, "a digit");
    while (json_is_digit(reader))
        reader->at++;
    *digits = reader->text + start;
    *count = reader->at - start;
    return OMENDB_OK;
}

/* What follows 'e'. Beyond the maximum it does not matter how far, as no text has so many digits.
 */
static int json_take_exponent(struct json_reader *reader, int64_t *exponent)
{
    const int negative = json_is(reader, '-');
    if (negative || json_is(reader, '+'))
        reader->at++;
    if (!json_is_digit(reader))
        return json_expected(reader, reader->at, "a digit");
    for (*exponent = 0; json_is_digit(reader); reader->at++) {
        if (*exponent < DECIMAL_EXPONENT_MAX / 16)
            *exponent = *exponent * 10 + (reader->text[reader->at] - '0');
    }
    if (negative)
        *exponent = -*exponent;
    return OMENDB_OK;
}

/* 1: the digits are an integer that fits. */
static int json_integer(const uint8_t *digits, size_t count, int negative, int64_t *integer)
{
    const uint64_t most = (uint64_t)INT64_MAX + (negative ? 1 : 0);
    uint64_t value = 0;
    if (count > 19)
        return 0;
    for (size_t i = 0; i < count; i++)
        value = value * 10 + (uint64_t)(digits[i] - '0');
    if (value > most)
        return 0;
    *integer = negative ? (int64_t)(0 - value) : (int64_t)value;
    return 1;
}

static int json_take_decimal(struct json_reader *reader, struct decimal *decimal)
{
    memset(decimal, 0, sizeof *decimal);
    int code = json_take_digits(reader, &decimal->whole, &decimal->whole_size);
    if (code == OMENDB_OK && decimal->whole_size > 1 && decimal->whole[0] == '0')
        return error_set(OMENDB_INVALID, "%s: byte %zu: a number must not begin with 0 and a digit",
                         reader->about, (size_t)(decimal->whole - reader->text));
    if (code == OMENDB_OK && json_is(reader, '.')) {
        reader->at++;
        code = json_take_digits(reader, &decimal->fraction, &decimal->fraction_size);
    }
    if (code == OMENDB_OK && (json_is(reader, 'e') || json_is(reader, 'E'))) {
        reader->at++;
        code = json_take_exponent(reader, &decimal->exponent);
    }
    return code;
}

OMENDB_INTERNAL int json_take_number(struct json_reader *reader, struct json_number *number)
{
    struct decimal decimal;
    const size_t start = reader->at;
    const int negative = json_is(reader, '-');
    memset(number, 0, sizeof *number);
    reader->at += (size_t)negative;
    const int code = json_take_decimal(reader, &decimal);
    if (code != OMENDB_OK)
        return code;
    const int is_whole = reader->at == start + (size_t)negative + decimal.whole_size;
    if (is_whole && json_integer(decimal.whole, decimal.whole_size, negative, &number->integer)) {
        number->is_integer = 1;
        return OMENDB_OK;
    }
    number->real = decimal_value(&decimal);
    if (isinf(number->real))
        return error_set(OMENDB_INVALID, "%s: byte %zu: the number is too large for a double",
                         reader->about, start);
    if (negative)
        number->real = -number->real;
    return OMENDB_OK;
}

/* ------------------------------------------------------------------------------------------------
 * texts */

/* Whether one of eight bytes is a quote, a backslash, below space, or not ASCII. */
static int json_eight_are_special(uint64_t eight)
{
    const uint64_t quotes = eight ^ (JSON_EACH_BYTE * '"');
    const uint64_t slashes = eight ^ (JSON_EACH_BYTE * '\\');
    const uint64_t found = ((quotes - JSON_EACH_BYTE) & ~quotes) |
                           ((slashes - JSON_EACH_BYTE) & ~slashes) |
                           ((eight - JSON_EACH_BYTE * ' ') & ~eight) | eight;
    return (found & JSON_HIGH_BITS) != 0;
}

/* How many bytes stand for themselves in a text, from the first on. */
static size_t json_plain_bytes(const uint8_t *text, size_t size)
{
    size_t at = 0, bytes = 1;
    while (at < size && bytes != 0) {
        uint64_t eight;
        for (; size - at >= sizeof eight; at += sizeof eight) {
            memcpy(&eight, text + at, sizeof eight);
            if (json_eight_are_special(eight))
                break;
        }
        for (; at < size && text[at] < 0x80; at++)
            if (text[at] == '"' || text[at] == '\\' || text[at] < ' ')
                return at;
        bytes = at < size ? json_utf8_character(text + at, size - at) : 0;
        at += bytes;
    }
    return at;
}

/* The four digits from the next byte on. */
static int json_take_hexadecimal(struct json_reader *reader, uint32_t *value)
{
    *value = 0;
    for (size_t i = 0; i < 4; i++, reader->at++) {
        const uint8_t byte = reader->at < reader->size ? reader->text[reader->at] : 0;
        if (byte >= '0' && byte <= '9')
            *value = *value << 4 | (uint32_t)(byte - '0');
        else if ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f')
            *value = *value << 4 | (uint32_t)((byte | 0x20) - 'a' + 10);
        else
            return json_expected(reader, reader->at, "four hexadecimal digits after '\\u'");
    }
    return OMENDB_OK;
}

/* What follows "\u": a character, or the first half of one in UTF-16, then "\u" and its second. */
static int json_take_code(struct json_reader *reader, uint32_t *character)
{
    static const char other_half[] = "'\\u' and the other half of a surrogate pair";
    uint32_t second;
    const size_t start = reader->at;
    int code = json_take_hexadecimal(reader, character);
    if (code != OMENDB_OK || *character < 0xD800 || *character > 0xDFFF)
        return code;
    if (*character >= 0xDC00)
        return json_expected(reader, start, "the first half of a surrogate pair first");
    for (size_t i = 0; i < 2; i++, reader->at++)
        if (!json_is(reader, "\\u"[i]))
            return json_expected(reader, reader->at, other_half);
    const size_t place = reader->at;
    code = json_take_hexadecimal(reader, &second);
    if (code == OMENDB_OK && (second < 0xDC00 || second > 0xDFFF))
        return json_expected(reader, place, "the second half of a surrogate pair");
    *character = 0x10000 + ((*character - 0xD800) << 10) + (second - 0xDC00);
    return code;
}

/* What stands at a backslash, as UTF-8. */
static int json_take_escape(struct json_reader *reader, uint8_t out[4], size_t *size)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    uint32_t character = 0;
    const uint8_t name = reader->at + 1 < reader->size ? reader->text[reader->at + 1] : 0;
    const char *found = name == 0 ? NULL : strchr(names, name);
    int code = OMENDB_OK;
    if (found == NULL && name != 'u')
        return json_expected(reader, reader->at + 1, "one of \"\\/bfnrtu after '\\'");
    reader->at += 2;
    if (found != NULL)
        character = (uint32_t)values[found - names];
    else
        code = json_take_code(reader, &character);
    *size = code == OMENDB_OK ? json_utf8_put(character, out) : 0;
    return code;
}

/* What ends a text without its quote. */
static int json_text_error(const struct json_reader *reader)
{
    const uint8_t byte = reader->at < reader->size ? reader->text[reader->at] : '"';
    if (reader->at >= reader->size)
        return json_expected(reader, reader->at, "'\"' at the end of a text");
    if (byte < ' ')
        return error_set(OMENDB_INVALID,
                         "%s: byte %zu: the control character 0x%02x must be written as \\u%04x",
                         reader->about, reader->at, byte, byte);
    return error_set(OMENDB_INVALID, "%s: byte %zu: not UTF-8 (0x%02x)", reader->about, reader->at,
                     byte);
}

OMENDB_INTERNAL int json_take_text(struct json_reader *reader, uint8_t *out, size_t capacity,
                                   size_t *size)
{
    uint8_t escaped[4];
    *size = 0;
    for (reader->at++; !json_is(reader, '"');) {
        const uint8_t *bytes = reader->text + reader->at;
        size_t count = json_plain_bytes(bytes, reader->size - reader->at);
        reader->at += count;
        if (count == 0) {
            if (!json_is(reader, '\\'))
                return json_text_error(reader);
            const int code = json_take_escape(reader, escaped, &count);
            if (code != OMENDB_OK)
                return code;
            bytes = escaped;
        }
        if (count > capacity - *size)
            return error_set(OMENDB_TOOBIG, "%s: byte %zu: longer than is allowed", reader->about,
                             reader->at);
        memcpy(out + *size, bytes, count);
        *size += count;
    }
    reader->at++;
    return OMENDB_OK;
}

/* ------------------------------------------------------------------------------------------------
 * writing */

OMENDB_INTERNAL void json_write(struct json_writer *writer, const void *bytes, size_t size)
{
    const size_t left = writer->size < writer->capacity ? writer->capacity - writer->size : 0;
    const size_t copied = size < left ? size : left;
    if (copied > 0)
        memcpy(writer->out + writer->size, bytes, copied);
    writer->size += size;
}

OMENDB_INTERNAL void json_write_integer(struct json_writer *writer, int64_t integer)
{
    char text[20];
    size_t at = sizeof text;
    uint64_t left = integer < 0 ? 0 - (uint64_t)integer : (uint64_t)integer;
    do
        text[--at] = (char)('0' + left % 10);
    while ((left /= 10) != 0);
    if (integer < 0)
        text[--at] = '-';
    json_write(writer, text + at, sizeof text - at);
}

OMENDB_INTERNAL void json_write_real(struct json_writer *writer, double real)
{
    char text[DECIMAL_BYTES];
    json_write(writer, text, decimal_write(real, text));
}

static void json_write_escape(struct json_writer *writer, uint8_t byte)
{
    static const char values[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
    char text[8] = "\\";
    const char *found = byte == 0 ? NULL : strchr(values, byte);
    if (found != NULL)
        text[1] = names[found - values];
    else
        snprintf(text, sizeof text, "\\u%04x", byte);
    json_write(writer, text, found != NULL ? 2 : 6);
}

OMENDB_INTERNAL void json_write_text(struct json_writer *writer, const uint8_t *text, size_t size)
{
    json_write(writer, "\"", 1);
    for (size_t at = 0; at < size; at++) {
        const size_t plain = json_plain_bytes(text + at, size - at);
        json_write(writer, text + at, plain);
        at += plain;
        if (at < size)
            json_write_escape(writer, text[at]);
    }
    json_write(writer, "\"", 1);
}

OMENDB_INTERNAL void json_write_end(struct json_writer *writer)
{
    if (writer->capacity > 0)
        writer->out[writer->size < writer->capacity ? writer->size : writer->capacity - 1] = '\0';
}

#undef JSON_EACH_BYTE
#undef JSON_HIGH_BITS
