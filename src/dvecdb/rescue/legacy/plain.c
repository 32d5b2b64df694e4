/* Records of a legacy file in which nothing is in question, their metadata as JSON, and vectors side
 * by side; called by plain.py.
 *
 * The same as `plain._by_python` and `metadata._fast_map`, which say what is in question: whatever
 * is ends the walk here, and they look at it. Bytes are never read beyond `size`, whatever they say,
 * and metadata is as deep as the tables of keys, which come from other records.
 *
 * Metadata is gone through twice. The first time its numbers with a fraction are collected and the
 * room for its JSON is counted; the caller has their texts made, and the second time all is written.
 * Both times in a copy: the file is mapped, and somebody may be writing it.
 */
#include <stdint.h>

typedef uint8_t Byte;
typedef int64_t Size;

enum { HEAD = 32, SIXTEEN = 16, METADATA_MAX = 1 << 20, KEYS_MAX = 256, DEPTH_MAX = 16 };
enum { NUL, BOOL, INT, FLOAT, TEXT, ARRAY, OBJECT }; /* kinds, as evidence.py counts them */

/* A key: its bytes in `text`, with their length before them, and those of its JSON; what it holds. */
typedef struct {
    Size stored, stored_size, name, name_size, kind, inner;
} Key;

/* The keys of an object: from `first` on. */
typedef struct {
    Size first, count;
} Table;

typedef struct {
    const Key *keys;
    const Table *tables;
    const Byte *text;
    double *reals; /* numbers with a fraction, in order: collected */
    Size real_count, real_max;
    const Byte *real_texts; /* the same as JSON, with a comma behind each: 0 while counting */
    Byte *out;              /* 0 while counting */
    Size size;              /* of what was written, or would be */
} Reader;

typedef struct {
    const Byte *at, *end;
} Bytes;

static int is_same(const Byte *one, const Byte *other, Size size) {
    for (Size i = 0; i < size; i++)
        if (one[i] != other[i]) return 0;
    return 1;
}

/* One by one, and not to be seen through: of a loop without that, `memcpy` of a library is made. */
static void copy(Byte *to, const Byte *from, Size size) {
    for (Size i = 0; i < size; i++) {
        to[i] = from[i];
        __asm__ volatile("" : : : "memory");
    }
}

static uint64_t word(const Byte *at) {
    uint64_t value;
    __builtin_memcpy(&value, at, 8);
    return value;
}

static void put(Reader *reader, Byte byte) {
    if (reader->out) reader->out[reader->size] = byte;
    reader->size++;
}

static void put_all(Reader *reader, const Byte *bytes, Size size) {
    if (reader->out)
        for (Size i = 0; i < size; i++) reader->out[reader->size + i] = bytes[i];
    reader->size += size;
}

static void put_integer(Reader *reader, uint64_t value, int is_negative) {
    Byte digits[20];
    int at = 20;
    do digits[--at] = (Byte)('0' + value % 10);
    while (value /= 10);
    if (is_negative) put(reader, '-');
    put_all(reader, digits + at, 20 - at);
}

static int put_real(Reader *reader, double value) {
    if (!reader->out) {
        if (reader->real_count >= reader->real_max) return 0;
        reader->reals[reader->real_count++] = value;
        return 1;
    }
    const Byte *text = reader->real_texts;
    while (*text != ',') put(reader, *text++);
    reader->real_texts = text + 1;
    return 1;
}

/* Return the bytes of the UTF-8 letter at `at`, 0 if there is none: as Python decodes, strictly. */
static int letter_size(const Byte *at, const Byte *end) {
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    if (*at < 0x80) return 1;
    const int size = *at >= 0xF0 ? 4 : *at >= 0xE0 ? 3 : 2;
    if (*at < 0xC2 || *at > 0xF4 || end - at < size) return 0;
    uint32_t letter = *at & (0x7Fu >> size);
    for (int i = 1; i < size; i++) {
        if ((at[i] & 0xC0) != 0x80) return 0;
        letter = letter << 6 | (at[i] & 0x3F);
    }
    if (letter < least[size] || letter > 0x10FFFF || (letter >= 0xD800 && letter < 0xE000)) return 0;
    return size;
}

static int put_text(Reader *reader, const Byte *at, const Byte *end) {
    static const Byte hexadecimal[] = "0123456789abcdef";
    put(reader, '"');
    while (at < end) {
        const int size = letter_size(at, end);
        if (!size) return 0;
        if (*at == '"' || *at == '\\' || *at < 0x20) {
            Byte escaped = *at;
            put(reader, '\\');
            switch (*at) {
            case '\b': escaped = 'b'; break;
            case '\f': escaped = 'f'; break;
            case '\n': escaped = 'n'; break;
            case '\r': escaped = 'r'; break;
            case '\t': escaped = 't'; break;
            }
            if (escaped < 0x20) {
                const Byte code[] = {'u', '0', '0', hexadecimal[*at >> 4], hexadecimal[*at & 15]};
                put_all(reader, code, 5);
            } else {
                put(reader, escaped);
            }
        } else {
            put_all(reader, at, size);
        }
        at += size;
    }
    put(reader, '"');
    return 1;
}

/* What eight bytes are, as `untagged.number_at` has it. Those that are odd end the walk. */
static int number(Reader *reader, Bytes *data, Size kind) {
    const uint64_t exact = (uint64_t)1 << 53;
    if (data->end - data->at < 8) return 0;
    const uint64_t bits = word(data->at);
    data->at += 8;
    if (bits == 0 && kind == FLOAT) {
        put_all(reader, (const Byte *)"0.0", 3);
        return 1;
    }
    if (bits < exact || -bits < exact) {
        put_integer(reader, bits < exact ? bits : -bits, bits >= exact);
        return 1;
    }
    double value;
    __builtin_memcpy(&value, &bits, 8);
    const double size = value < 0 ? -value : value;
    if (size >= 1e-18 && size <= 1e18) return put_real(reader, value);
    if (bits >> 63 || !(size > 1e-300 && size < 1e-100)) return 0;
    put_integer(reader, bits, 0); /* nanoseconds since 1970 */
    return 1;
}

/* A value of one of the kinds that a key, or the elements of an array, always hold. */
static int value(Reader *reader, Bytes *data, Size kind) {
    if (kind == TEXT) {
        if (data->end - data->at < 8) return 0;
        const uint64_t size = word(data->at);
        data->at += 8;
        if (size > (uint64_t)(data->end - data->at)) return 0;
        const Byte *begin = data->at;
        data->at += size;
        return put_text(reader, begin, data->at);
    }
    if (kind == BOOL) {
        if (data->at >= data->end || *data->at > 1) return 0;
        if (*data->at++) put_all(reader, (const Byte *)"true", 4);
        else put_all(reader, (const Byte *)"false", 5);
        return 1;
    }
    return number(reader, data, kind);
}

static int items(Reader *reader, Bytes *data, Size kind) {
    if (data->end - data->at < 8) return 0;
    const uint64_t count = word(data->at);
    data->at += 8;
    put(reader, '[');
    for (uint64_t i = 0; i < count; i++) { /* each takes a byte at least, so this ends */
        if (i) put(reader, ',');
        if (!value(reader, data, kind)) return 0;
    }
    put(reader, ']');
    return 1;
}

static const Key *key_of(const Reader *reader, const Table *table, Bytes *data, Size likely) {
    if (data->end - data->at < 8) return 0;
    for (Size i = 0; i < table->count; i++) { /* most often in the order of a record before */
        const Size number = likely + i < table->count ? likely + i : likely + i - table->count;
        const Key *key = reader->keys + table->first + number;
        if (data->end - data->at < key->stored_size) continue;
        if (word(data->at) != word(reader->text + key->stored)) continue;
        if (!is_same(data->at + 8, reader->text + key->stored + 8, key->stored_size - 8)) continue;
        data->at += key->stored_size;
        return key;
    }
    return 0;
}

static int map(Reader *reader, Bytes *data, Size number, int depth) {
    const Table *table = reader->tables + number;
    uint64_t seen[KEYS_MAX / 64] = {0};
    if (depth > DEPTH_MAX || data->end - data->at < 8) return 0;
    const uint64_t count = word(data->at);
    data->at += 8;
    if (count > (uint64_t)table->count) return 0; /* a key that is none of these, or twice */
    put(reader, '{');
    Size likely = 0;
    for (uint64_t i = 0; i < count; i++) {
        const Key *key = key_of(reader, table, data, likely);
        if (!key) return 0;
        const Size place = key - (reader->keys + table->first);
        if (seen[place / 64] >> place % 64 & 1) return 0;
        seen[place / 64] |= (uint64_t)1 << place % 64;
        likely = place + 1 < table->count ? place + 1 : 0;
        if (i) put(reader, ',');
        put_all(reader, reader->text + key->name, key->name_size);
        const int is_read = key->kind == OBJECT  ? map(reader, data, key->inner, depth + 1)
                            : key->kind == ARRAY ? items(reader, data, key->inner)
                                                 : value(reader, data, key->kind);
        if (!is_read) return 0;
    }
    put(reader, '}');
    return 1;
}

/* Tell whether a vector ends with zeros, or has several in a row: they may be a hole. */
static int has_zeros(const Byte *at, Size size) {
    const Size sixteenth = size / 16;
    const Size run = 4 * (sixteenth > 8 ? 8 : sixteenth < 2 ? 2 : sixteenth);
    if (size >= 8 && word(at + size - 8) == 0) return 1;
    if (run < 32) {
        Size zeros = 0;
        for (Size i = 0; i < size; i++) {
            zeros = at[i] ? 0 : zeros + 1;
            if (zeros >= run) return 1;
        }
        return 0;
    }
    for (Size i = 0; i + 8 <= size; i += 24) { /* 32 bytes in a row have one of these in them */
        if (word(at + i)) continue;
        Size first = i, last = i + 8;
        while (first > 0 && !at[first - 1]) first--;
        while (last < size && !at[last]) last++;
        if (last - first >= run) return 1;
    }
    return 0;
}

static int is_marker(const Byte *data, Size size, Size at, uint64_t dimension) {
    return at + HEAD <= size && word(data + at) == SIXTEEN && word(data + at + 24) == dimension;
}

/* Return where the next record begins behind metadata that begins at `begin`, or -1. */
static Size next_marker(const Byte *data, Size size, Size begin, uint64_t dimension) {
    const Byte first = (Byte)dimension;
    const Size last = size - begin < METADATA_MAX ? size - HEAD : begin - 1 + METADATA_MAX;
    for (Size at = begin + 7; at <= last && at + HEAD <= size; at++)
        if (data[at + 24] == first && is_marker(data, size, at, dimension)) return at;
    return -1;
}

/* What the first of the two functions finds: of each record where it begins, how much metadata was
 * copied up to its end, and how many bytes of JSON there are before its numbers with a fraction are
 * in; and these. `begins` has one more, where the last one ends.
 */
typedef struct {
    Size *begins, *copied, *json_sizes;
    Byte *copies;
    Size copies_max;
    double *reals;
    Size reals_max, real_count;
} Records;

/* Go through records from `at` on, `count_max` at most. Return how many were found. */
Size dvecdb_plain(const Byte *data, Size size, Size used, Size at, Size dimension, const Key *keys,
                  const Table *tables, const Byte *text, Size count_max, Records *records) {
    Reader reader = {keys, tables, text, records->reals, 0, records->reals_max, 0, 0, 0};
    Size count = 0, copied = 0;
    for (; count < count_max; count++) {
        const Size tag_at = at + HEAD + 4 * dimension;
        if (tag_at >= used || !is_marker(data, size, at, (uint64_t)dimension)) break;
        const Byte tag = data[tag_at];
        if (tag > 1 || has_zeros(data + at + HEAD, 4 * dimension)) break;
        Size end = tag_at + 1;
        reader.size = 0;
        if (tag) {
            end = tables[0].count ? next_marker(data, size, tag_at + 1, (uint64_t)dimension) : -1;
            if (end < 0 || end - tag_at - 1 > records->copies_max - copied) break;
            const Size length = end - tag_at - 1;
            Bytes inside = {records->copies + copied, records->copies + copied + length};
            copy(records->copies + copied, data + tag_at + 1, length);
            const Size reals = reader.real_count;
            if (!map(&reader, &inside, 0, 0) || inside.at != inside.end) {
                reader.real_count = reals;
                break;
            }
            copied += length;
        } else if (!is_marker(data, size, end, (uint64_t)dimension)) {
            break;
        }
        records->begins[count] = at;
        records->copied[count] = copied;
        records->json_sizes[count] = reader.size;
        at = end;
    }
    records->begins[count] = at;
    records->real_count = reader.real_count;
    return count;
}

/* Write the JSON of records that were found; ends: where that of each ends in `out`, which has room
 * for all of it. real_texts: of the numbers that were collected, with a comma behind each.
 */
void dvecdb_plain_json(const Key *keys, const Table *tables, const Byte *text, Size count,
                       const Records *records, const Byte *real_texts, Byte *out, Size *ends) {
    Reader reader = {keys, tables, text, 0, 0, 0, real_texts, out, 0};
    for (Size i = 0; i < count; i++) {
        const Byte *end = records->copies + records->copied[i];
        Bytes inside = {i ? records->copies + records->copied[i - 1] : records->copies, end};
        if (inside.at < end) map(&reader, &inside, 0, 0);
        ends[i] = reader.size;
    }
}

/* Put vectors float32[dimension] that begin at addresses, anywhere, side by side into `out`. Return
 * whether all their numbers are finite.
 */
int dvecdb_side_by_side(const Byte *const *addresses, Size count, Size dimension, uint32_t *out) {
    uint32_t not_finite = 0;
    for (Size i = 0; i < count; i++, out += dimension) {
        const Byte *from = addresses[i];
        for (Size j = 0; j < dimension; j++) {
            uint32_t bits;
            __builtin_memcpy(&bits, from + 4 * j, 4);
            out[j] = bits;
            not_finite |= (bits & 0x7F800000) == 0x7F800000;
        }
    }
    return !not_finite;
}
