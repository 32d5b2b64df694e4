/* The codes of rows: of every few components together, which of 16 centroids is the nearest; called
 * by compiled.py.
 *
 * Eight rows at a time, one a lane. By half the squared distance without what all centroids have in
 * common, |c|^2 / 2 - x c: the least is the same. Codes only propose, so rounding is no matter.
 */
#include <stdint.h>

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx2")))
#else
#define TARGET
#endif
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { LANES = 8, CENTROIDS = 16, SHARED_MAX = 4 };

typedef float Lanes __attribute__((vector_size(32)));
typedef int32_t Numbers __attribute__((vector_size(32)));

/* centroids: of each its `shared` components, then half its squared length. */
INLINE Numbers nearest_of(const float *const rows[LANES], int64_t at, const float *centroids,
                          int shared) {
    Lanes x[SHARED_MAX], least = {0};
    Numbers code = {0};
    for (int j = 0; j < shared; j++)
        x[j] = (Lanes){rows[0][at + j], rows[1][at + j], rows[2][at + j], rows[3][at + j],
                       rows[4][at + j], rows[5][at + j], rows[6][at + j], rows[7][at + j]};
    for (int k = 0; k < CENTROIDS; k++, centroids += shared + 1) {
        Lanes distance = (Lanes){0} + centroids[shared];
        for (int j = 0; j < shared; j++) distance -= x[j] * centroids[j];
        const Numbers nearer = k ? distance < least : (Numbers){0} - 1;
        least = (Lanes)(((Numbers)distance & nearer) | ((Numbers)least & ~nearer));
        code = (code & ~nearer) | (nearer & k);
    }
    return code;
}

INLINE void code_rows(const float *points, int64_t count, int64_t components,
                      const float *centroids, int shared, uint8_t *codes) {
    const int64_t parts = components / shared, bytes = (parts + 1) / 2;
    const int64_t of_part = CENTROIDS * (shared + 1);
    for (int64_t first = 0; first < count; first += LANES) {
        const float *rows[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            const int64_t row = first + lane < count ? first + lane : count - 1;
            rows[lane] = points + row * components;
        }
        for (int64_t part = 0; part < parts; part += 2) {
            const float *here = centroids + part * of_part;
            Numbers both = nearest_of(rows, part * shared, here, shared);
            if (part + 1 < parts)
                both |= nearest_of(rows, (part + 1) * shared, here + of_part, shared) << 4;
            for (int lane = 0; lane < LANES && first + lane < count; lane++)
                codes[(first + lane) * bytes + part / 2] = (uint8_t)both[lane];
        }
    }
}

/* Code rows float32[count, components] whose every `shared` components, 2 or 4, have a code of four
 * bits: uint8[count, bytes], the first of two in the low half. centroids: of all parts in turn.
 */
TARGET void dvecdb_code(const float *points, int64_t count, int64_t components,
                        const float *centroids, int64_t shared, uint8_t *codes) {
    if (shared == 2) code_rows(points, count, components, centroids, 2, codes);
    else code_rows(points, count, components, centroids, 4, codes);
}
