/* The nearest of some rows, wherever they lie in memory: see compiled.py, which calls this.
 *
 * Distances are those of exact.py to the last bit. Numbers become doubles, are multiplied or
 * subtracted one by one, and summed in numpy's order: rows of up to 128 numbers in eight lanes, the
 * lanes in pairs, then what is left; longer ones as the sum of two halves (pairwise summation,
 * Higham, "The Accuracy of Floating Point Summation", 1993). No multiplication may be fused with an
 * addition: compile with -ffp-contract=off.
 *
 * Each function is made once for each metric and type, so nothing is decided row by row. Nothing
 * here allocates, locks, or calls a library.
 */
#include <stdint.h>

#if defined(__x86_64__)
#include <cpuid.h>
#define TARGET __attribute__((target("avx2,f16c")))
#else
#define TARGET
#endif
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { COSINE, EUCLIDEAN, MANHATTAN, DOT_PRODUCT, METRICS };
enum { FLOAT32, FLOAT16, INT8, TYPES };
enum { LANES = 8, LEAF = 128, AHEAD = 2, CACHE_LINE = 64 };

typedef double Lanes __attribute__((vector_size(64)));
typedef int64_t LaneBits __attribute__((vector_size(64)));
typedef double Query8 __attribute__((vector_size(64), aligned(8)));
typedef float Float32s __attribute__((vector_size(32), aligned(4)));
typedef _Float16 Float16s __attribute__((vector_size(16), aligned(2)));
typedef int8_t Int8s __attribute__((vector_size(8), aligned(1)));

typedef struct {
    double distance;
    int64_t place;
} Hit;

typedef struct {
    double sum, squares; /* of what a metric adds up; of the row, for cosine */
} Sums;

INLINE int size_of(int type) { return type == FLOAT32 ? 4 : type == FLOAT16 ? 2 : 1; }

INLINE Lanes eight(const char *row, int64_t at, int type) {
    const char *numbers = row + at * size_of(type);
    if (type == FLOAT32) return __builtin_convertvector(*(const Float32s *)numbers, Lanes);
    if (type == FLOAT16) return __builtin_convertvector(*(const Float16s *)numbers, Lanes);
    return __builtin_convertvector(*(const Int8s *)numbers, Lanes);
}

INLINE double one(const char *row, int64_t at, int type) {
    const char *number = row + at * size_of(type);
    if (type == FLOAT32) return *(const float *)number;
    if (type == FLOAT16) return (double)*(const _Float16 *)number;
    return *(const int8_t *)number;
}

INLINE double together(Lanes lanes) {
    return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
           ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

/* Sum over up to LEAF numbers. next: a row that is measured soon, fetched into the cache, or 0. */
INLINE Sums leaf(const char *row, const double *query, int64_t from, int64_t count,
                 const char *next, int metric, int type) {
    const int64_t whole = from + count - count % LANES, per_line = CACHE_LINE / size_of(type);
    Sums sums = {0.0, 0.0};
    int64_t at = from;
    if (at < whole) {
        Lanes sum = {0}, squares = {0};
        for (; at < whole; at += LANES) {
            const Lanes x = eight(row, at, type), q = *(const Query8 *)(query + at);
            Lanes term;
            if (next && at % per_line == 0) __builtin_prefetch(next + at * size_of(type), 0, 2);
            if (metric == EUCLIDEAN) term = (x - q) * (x - q);
            else if (metric == MANHATTAN) term = (Lanes)((LaneBits)(x - q) & INT64_MAX);
            else term = x * q;
            sum = at == from ? term : sum + term;
            if (metric == COSINE) squares = at == from ? x * x : squares + x * x;
        }
        sums.sum = together(sum);
        if (metric == COSINE) sums.squares = together(squares);
    }
    for (; at < from + count; at++) {
        const double x = one(row, at, type), q = query[at];
        if (metric == EUCLIDEAN) sums.sum += (x - q) * (x - q);
        else if (metric == MANHATTAN) sums.sum += __builtin_fabs(x - q);
        else sums.sum += x * q;
        if (metric == COSINE) sums.squares += x * x;
    }
    return sums;
}

INLINE double distance_of(Sums sums, double query_squares, int metric) {
    if (metric == EUCLIDEAN) return __builtin_sqrt(sums.sum);
    if (metric == MANHATTAN) return sums.sum;
    if (metric == DOT_PRODUCT) return 0.0 - sums.sum; /* never -0.0 */
    const double lengths = __builtin_sqrt(sums.squares * query_squares);
    const double distance = 1.0 - (lengths > 0.0 ? sums.sum / lengths : sums.sum);
    return distance < 0.0 ? 0.0 : distance > 2.0 ? 2.0 : distance; /* NaN stays */
}

#define MEASURE(name, metric, type)                                                               \
    static TARGET Sums sums_##name(const char *row, const double *query, int64_t from,            \
                                   int64_t count, const char *next) {                             \
        if (count <= LEAF) return leaf(row, query, from, count, next, metric, type);              \
        const int64_t half = count / 2 - count / 2 % LANES;                                       \
        const Sums low = sums_##name(row, query, from, half, next);                               \
        const Sums high = sums_##name(row, query, from + half, count - half, next);               \
        return (Sums){low.sum + high.sum, low.squares + high.squares};                            \
    }                                                                                             \
    static TARGET double measure_##name(const char *row, const double *query, int64_t dimension,  \
                                        double query_squares, const char *next) {                 \
        return distance_of(sums_##name(row, query, 0, dimension, next), query_squares, metric);   \
    }
#define MEASURES(name, type)                                                                      \
    MEASURE(cosine_##name, COSINE, type)                                                          \
    MEASURE(euclidean_##name, EUCLIDEAN, type)                                                    \
    MEASURE(manhattan_##name, MANHATTAN, type)                                                    \
    MEASURE(dot_product_##name, DOT_PRODUCT, type)
MEASURES(float32, FLOAT32)
MEASURES(float16, FLOAT16)
MEASURES(int8, INT8)

typedef double Measure(const char *, const double *, int64_t, double, const char *);
#define ROW_OF(type)                                                                              \
    {measure_cosine_##type, measure_euclidean_##type, measure_manhattan_##type,                   \
     measure_dot_product_##type}
static Measure *const measures[TYPES][METRICS] = {ROW_OF(float32), ROW_OF(float16), ROW_OF(int8)};

static int is_after(Hit one, Hit other) {
    return one.distance > other.distance ||
           (one.distance == other.distance && one.place > other.place);
}

/* Restore the heap, whose first is the last in order, below one that may be out of place. */
static void sink(Hit *heap, int64_t count, int64_t at) {
    const Hit hit = heap[at];
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && is_after(heap[child + 1], heap[child])) child++;
        if (!is_after(heap[child], hit)) break;
        heap[at] = heap[child];
    }
    heap[at] = hit;
}

static void sort(Hit *heap, int64_t count) {
    for (int64_t end = count - 1; end > 0; end--) {
        const Hit last = heap[0];
        heap[0] = heap[end];
        heap[end] = last;
        sink(heap, end, 0);
    }
}

static int is_place(int64_t place, int64_t places_end) {
    return place >= 0 && place < places_end;
}

/* What the nearest rows are wanted of. query: of the caller; wide: the same as doubles, filled in
 * here; squares: the sum of theirs, for cosine. */
typedef struct {
    const float *query;
    double *wide;
    int64_t dimension;
    double squares;
} Target;

static TARGET Target target_of(const float *query, double *wide, int64_t dimension, int metric) {
    Target target = {query, wide, dimension, 0.0};
    for (int64_t at = 0; at < dimension; at++) wide[at] = query[at];
    if (metric == COSINE)
        target.squares = sums_cosine_float32((const char *)query, wide, 0, dimension, 0).squares;
    return target;
}

static int64_t nearest_of(int metric, int type, const char *const *addresses, int64_t places_end,
                          const int64_t *places, int64_t count, const Target *target,
                          int64_t limit, Hit *nearest, int64_t *unknown) {
    Measure *const measure = measures[type][metric];
    int64_t found = 0, strangers = 0;
    for (int64_t at = 0; at < count; at++) {
        const int64_t place = places[at], soon = at + AHEAD < count ? places[at + AHEAD] : -1;
        if (place < 0) continue;
        const char *row = is_place(place, places_end) ? addresses[place] : 0;
        if (!row) {
            unknown[++strangers] = place;
            continue;
        }
        const char *next = is_place(soon, places_end) ? addresses[soon] : 0;
        const Hit hit = {measure(row, target->wide, target->dimension, target->squares, next),
                         place};
        if (hit.distance - hit.distance != 0.0) continue; /* NaN or infinite */
        if (found < limit) {
            nearest[found++] = hit;
            if (found == limit)
                for (int64_t parent = found / 2; parent-- > 0;) sink(nearest, found, parent);
        } else if (is_after(nearest[0], hit)) {
            nearest[0] = hit;
            sink(nearest, found, 0);
        }
    }
    if (found < limit)
        for (int64_t parent = found / 2; parent-- > 0;) sink(nearest, found, parent);
    sort(nearest, found);
    unknown[0] = strangers;
    return found;
}

/* Find the nearest of the rows at `places`, by (distance, place); return how many there are.
 *
 * addresses: of the rows, by place, `places_end` of them; 0 where it is not known. Places below 0
 * are none. wide: room for `dimension`. nearest: room for `limit`, 1 or more. unknown: room for
 * `count` and one: first how many rows have no address, then their places. Rows that are not finite
 * are left out.
 */
int64_t dvecdb_nearest(int metric, int type, const char *const *addresses, int64_t places_end,
                       const int64_t *places, int64_t count, const float *query, double *wide,
                       int64_t dimension, int64_t limit, Hit *nearest, int64_t *unknown) {
    const Target target = target_of(query, wide, dimension, metric);
    return nearest_of(metric, type, addresses, places_end, places, count, &target, limit, nearest,
                      unknown);
}

/* Let faiss look for candidates in one or two indexes, and find the nearest of them.
 *
 * scan: its `search` of an index, a member function. The point that is looked for is made here: the
 * query divided by `divisor`, and zeros up to `components`. distances, places: room for `depth` of
 * each index, nearest first. chosen: room for `wanted`: the places of the first that are allowed
 * (by place; 0: all are). candidates: how many those were. All else as `dvecdb_nearest`.
 */
typedef void Scan(const void *index, int64_t queries, const float *points, int64_t depth,
                  float *distances, int64_t *places, const void *parameters);

int64_t dvecdb_search(Scan *scan, const void *const *indexes, int64_t count, float *point,
                      int64_t components, double divisor, int64_t depth, const void *parameters,
                      float *distances, int64_t *places, const uint8_t *allowed, int64_t *chosen,
                      int64_t wanted, int64_t *candidates, int metric, int type,
                      const char *const *addresses, int64_t places_end, const float *query,
                      double *wide, int64_t dimension, int64_t limit, Hit *nearest,
                      int64_t *unknown) {
    const Target target = target_of(query, wide, dimension, metric);
    for (int64_t at = 0; at < components; at++)
        point[at] = at < dimension ? (float)(wide[at] / divisor) : 0.0f;
    for (int64_t index = 0; index < count; index++)
        scan(indexes[index], 1, point, depth, distances + index * depth, places + index * depth,
             parameters);
    int64_t found = 0, next[2] = {0, depth};
    const int64_t ends[2] = {depth, count * depth};
    while (found < wanted) { /* the next of both, the first index's if they seem as near */
        int from = -1;
        for (int index = 0; index < count; index++) {
            if (next[index] >= ends[index] || !is_place(places[next[index]], places_end)) continue;
            if (from < 0 || distances[next[index]] < distances[next[from]]) from = index;
        }
        if (from < 0) break;
        const int64_t place = places[next[from]++];
        if (!allowed || allowed[place]) chosen[found++] = place;
    }
    *candidates = found;
    return nearest_of(metric, type, addresses, places_end, chosen, found, &target, limit, nearest,
                      unknown);
}

/* Tell whether this processor has the instructions that the functions above were made of. */
int dvecdb_is_usable(void) {
#if defined(__x86_64__)
    const unsigned f16c_avx_osxsave = 1u << 29 | 1u << 28 | 1u << 27, avx2 = 1u << 5;
    unsigned a, b, c, d, kept, more;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & f16c_avx_osxsave) != f16c_avx_osxsave) return 0;
    __asm__("xgetbv" : "=a"(kept), "=d"(more) : "c"(0)); /* does the system keep the registers? */
    if ((kept & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    return (b & avx2) != 0;
#else
    return 1;
#endif
}
