/* What is measured on the way: values that no block can hold, and the error of what was stored.
 *
 * The sums are float64 in eight partial sums and one fixed tree, so they too are the same on every machine. */
#include "gguftool.h"
#include "vec.h"

/* Per lane the larger of the magnitude seen so far and a new one, as bits (non-negative, so signed will do). */
#if VW == 16
GT_INLINE vi keep_larger(vi seen, vi bits) { return (vi)_mm512_max_epi32((__m512i)seen, (__m512i)bits); }
#elif VW == 8
GT_INLINE vi keep_larger(vi seen, vi bits) { return (vi)_mm256_max_epi32((__m256i)seen, (__m256i)bits); }
#else
GT_INLINE vi keep_larger(vi seen, vi bits) { return vi_select(seen > bits, seen, bits); }
#endif

int64_t GT_FN(gt_first_unfit)(const float *x, int64_t n, uint32_t limit) {
    vi top[4] = {{0}};
    int32_t lanes[4 * VW];
    int64_t i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW)
        for (int k = 0; k < 4; ++k)
            top[k] = keep_larger(top[k], vi_load((const int32_t *)(x + i + k * VW)) & 0x7fffffff);
    memcpy(lanes, top, sizeof lanes);
    for (int k = 0; k < 4 * VW; ++k)
        if ((uint32_t)lanes[k] >= limit) i = 0;
    for (; i < n; ++i)
        if ((f_bits(x[i]) & 0x7fffffff) >= limit) return i;
    return -1;
}

#define VD (VW / 2)
#define PARTS (8 / VD)
typedef double vd __attribute__((vector_size(4 * VW)));
typedef float vh __attribute__((vector_size(2 * VW)));

GT_INLINE vd widen(const float *p) {
    vh h;
    memcpy(&h, p, sizeof h);
    return __builtin_convertvector(h, vd);
}

static double tree8(const vd *parts) {
    double p[8];
    memcpy(p, parts, sizeof p);
    return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

void GT_FN(gt_error_row)(const float *x, const float *y, const double *a, int64_t n, double sums[4]) {
    vd ae[PARTS] = {{0}}, ax[PARTS] = {{0}}, ee[PARTS] = {{0}}, xx[PARTS] = {{0}};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < PARTS; ++k) {
            vd u = widen(x + i + k * VD), e = u - widen(y + i + k * VD);
            vd e2 = e * e, u2 = u * u;
            ee[k] += e2;
            xx[k] += u2;
            if (a) {
                vd c;
                memcpy(&c, a + i + k * VD, sizeof c);
                ae[k] += c * e2;
                ax[k] += c * u2;
            }
        }
    double row[4] = {tree8(ae), tree8(ax), tree8(ee), tree8(xx)};
    for (; i < n; ++i) {
        double u = x[i], e = u - (double)y[i];
        row[2] += e * e;
        row[3] += u * u;
        if (a) {
            row[0] += a[i] * (e * e);
            row[1] += a[i] * (u * u);
        }
    }
    sums[0] += a ? row[0] : row[2];
    sums[1] += a ? row[1] : row[3];
    sums[2] += row[2];
    sums[3] += row[3];
}
