/* The search for the scale of a symmetric block, sixteen blocks side by side.
 *
 * A symmetric block stores x as s * l with codes l in -N .. N-1. For a given s the best code is the nearest one, so the
 * whole problem is s: the weighted error as a function of s is a saw of many teeth, and the lowest tooth is found by
 * trying. *Blocks* are in the lanes, not candidates: a tile holds sixteen blocks transposed, element i of all sixteen
 * in one row. A candidate scale is then one vector, its error needs no sum across lanes, the best one is kept by a
 * comparison, any number of candidates will do, and each lane works in the order of scalar code, so every instruction
 * set gives the same bytes. With t = x / s and e = t - l the error is s^2 sum w e^2: nine operations for sixteen
 * weights, sixteen for both signs of s together, which share t and differ only in which end has the extra level.
 *
 * Everything is done on x * 2^-k with the largest magnitude in [1, 2), so nothing can overflow or vanish; scales are
 * rounded to binary16 where they will be stored, at the real scale, and only what is rounded is measured.
 */
#ifndef GGUFTOOL_SYMMETRIC_SEARCH_H
#define GGUFTOOL_SYMMETRIC_SEARCH_H

#include "bytes.h"
#include "gguftool.h"
#include "lanes.h"

#define MAGIC_BITS 0x4b400000

/* The smaller and the larger of two roundings still on top of GT_MAGIC, as integers: their bits are in order, the
 * integer units are idle here, and even the overflow of an absurd t stays on its own side. */
#if VW == 16
GT_INLINE vi vi_min(vi a, vi b) { return (vi)_mm512_min_epi32((__m512i)a, (__m512i)b); }
GT_INLINE vi vi_max(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }
#elif VW == 8
GT_INLINE vi vi_min(vi a, vi b) { return (vi)_mm256_min_epi32((__m256i)a, (__m256i)b); }
GT_INLINE vi vi_max(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }
#else
GT_INLINE vi vi_min(vi a, vi b) { return vi_select(a < b, a, b); }
GT_INLINE vi vi_max(vi a, vi b) { return vi_select(a > b, a, b); }
#endif

/* The nearest of low .. high to t, on top of GT_MAGIC; and as a float. */
GT_INLINE vi code_bits(vf t, int low, int high) {
    return vi_min(vi_max((vi)(t + GT_MAGIC), vi_set1(MAGIC_BITS + low)), vi_set1(MAGIC_BITS + high));
}
GT_INLINE vf code_of(vf t, int low, int high) { return (vf)code_bits(t, low, high) - GT_MAGIC; }

GT_INLINE void cut_far(float *x, int n) {
    for (int i = 0; i < n; i += VW) vf_store(x + i, within_far(vf_load(x + i)));
}

/* The binary16 nearest to v >= 0, at least the smallest positive and at most the largest finite one. */
GT_INLINE vf round_to_f16(vf v) {
    vi bits = (vi)v;
    vf normal = (vf)((bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fff);
    vf subnormal = (v + 0.5f) - 0.5f; /* the ulp of [0.5, 1) is 2^-24 */
    vf r = vf_select(bits < 0x38800000, subnormal, normal);
    return vf_min(vf_max(r, vf_set1(LEAST_SCALE)), vf_set1(LARGEST_SCALE));
}

/* So many candidates go through the rows together: they share loads, and their latencies overlap. */
#define SINGLES (VW == 16 ? 4 : 2)
#define PAIRS 2
#define EACH(many) for (int u = 0; u < (many); ++u)

/* For each candidate scale sum w (t - l)^2 over n rows, t = x * inverse, with codes -levels .. levels-1. */
GT_INLINE void errors_of(const float *x, const float *w, int n, const vf inverse[SINGLES], int levels,
                         vf plus[SINGLES]) {
    vf p[SINGLES] = {{0}};
    for (int i = 0; i < n; ++i) {
        vf v = vf_load(x + i * LANES), weight = vf_load(w + i * LANES);
        EACH(SINGLES) {
            vf t = v * inverse[u], e = t - code_of(t, -levels, levels - 1);
            p[u] += (weight * e) * e;
        }
    }
    EACH(SINGLES) plus[u] = p[u];
}

/* The same, and with codes -levels+1 .. levels, which are the mirrored codes of the scale of opposite sign. */
GT_INLINE void errors_of_both(const float *x, const float *w, int n, const vf inverse[PAIRS], int levels,
                              vf plus[PAIRS], vf minus[PAIRS]) {
    vf p[PAIRS] = {{0}}, m[PAIRS] = {{0}};
    for (int i = 0; i < n; ++i) {
        vf v = vf_load(x + i * LANES), weight = vf_load(w + i * LANES);
        EACH(PAIRS) {
            vf t = v * inverse[u];
            vf e = t - code_of(t, -levels, levels - 1), f = t - code_of(t, 1 - levels, levels);
            p[u] += (weight * e) * e;
            m[u] += (weight * f) * f;
        }
    }
    EACH(PAIRS) {
        plus[u] = p[u];
        minus[u] = m[u];
    }
}

GT_INLINE vf error_of(const float *x, const float *w, int n, vf inverse, int levels) {
    vf p = {0};
    for (int i = 0; i < n; ++i) {
        vf t = vf_load(x + i * LANES) * inverse, e = t - code_of(t, -levels, levels - 1);
        p += (vf_load(w + i * LANES) * e) * e;
    }
    return p;
}

/* xl = sum w x l and ll = sum w l^2: the least-squares scale for these codes is xl / ll, and lowers the error by
 * xl^2 / ll against zeros. */
GT_INLINE void moments_of(const float *x, const float *w, int n, vf inverse, int levels, vf *xl, vf *ll) {
    vf a = {0}, b = {0};
    for (int i = 0; i < n; ++i) {
        vf v = vf_load(x + i * LANES), l = code_of(v * inverse, -levels, levels - 1), wl = vf_load(w + i * LANES) * l;
        a += wl * v;
        b += wl * l;
    }
    *xl = a;
    *ll = b;
}

/* sum w x^2: the error of a block that is stored as zero. */
GT_INLINE vf energy_of(const float *x, const float *w, int n) {
    vf a = {0};
    for (int i = 0; i < n; ++i) {
        vf v = vf_load(x + i * LANES);
        a += (vf_load(w + i * LANES) * v) * v;
    }
    return a;
}

/* The best candidate so far in a group of lanes; of equals, the first. */
typedef struct {
    vf score, s;
} found;

GT_INLINE void keep(found *best, vi wins, vf score, vf s) {
    best->score = vf_select(wins, score, best->score);
    best->s = vf_select(wins, s, best->s);
}

GT_INLINE vf sign_of(vf v) { return vf_select(v < vf_set1(0.0f), vf_set1(-1.0f), vf_set1(1.0f)); }

/* Candidate scales v * (from + k * step), k < count, with the sign of v or with both. */
typedef struct {
    float from, step;
    int count, both;
} spread;

#define SPREAD(from, to, count, both) {(from), ((to) - (from)) / ((count) - 1.0f), (count), (both)}
#define NO_SPREAD {0.0f, 0.0f, 0, 0}
#define HOPELESS 0x1p100f /* an error that every candidate beats */

GT_INLINE float factor(const spread *range, int k) {
    return range->from + (float)(k < range->count ? k : range->count - 1) * range->step;
}

/* Tries the scales around v, as real numbers. */
GT_INLINE found search_spread(const float *x, const float *w, int n, vf v, const spread *range, int levels,
                              found best) {
    if (range->both)
        for (int k = 0; k < range->count; k += PAIRS) {
            vf s[PAIRS], inverse[PAIRS], e[PAIRS], f[PAIRS];
            EACH(PAIRS) {
                s[u] = v * factor(range, k + u);
                inverse[u] = vf_set1(1.0f) / s[u];
            }
            errors_of_both(x, w, n, inverse, levels, e, f);
            EACH(PAIRS) {
                e[u] *= s[u] * s[u];
                f[u] *= s[u] * s[u];
                keep(&best, e[u] < best.score, e[u], s[u]);
                keep(&best, f[u] < best.score, f[u], -s[u]);
            }
        }
    else
        for (int k = 0; k < range->count; k += SINGLES) {
            vf s[SINGLES], inverse[SINGLES], e[SINGLES];
            EACH(SINGLES) {
                s[u] = v * factor(range, k + u);
                inverse[u] = vf_set1(1.0f) / s[u];
            }
            errors_of(x, w, n, inverse, levels, e);
            EACH(SINGLES) {
                e[u] *= s[u] * s[u];
                keep(&best, e[u] < best.score, e[u], s[u]);
            }
        }
    return best;
}

/* 1 / s, and 0 where s is 0. */
GT_INLINE vf inverse_of(vf s) {
    vi zero = s == vf_set1(0.0f);
    vf r = vf_set1(1.0f) / vf_select(zero, vf_set1(1.0f), s);
    return vf_select(zero, vf_set1(0.0f), r);
}

#endif
