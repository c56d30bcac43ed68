/* The search for scale and minimum of an affine sub-block, sixteen sub-blocks side by side.
 *
 * A sub-block stores x as S l - M with codes l in 0 .. N. Sub-blocks are in the lanes: a tile holds sixteen of them
 * transposed, element i of all of them in one row, so that a candidate (S, M) is one pair of vectors, no sum goes across
 * lanes, and each lane works in the order of scalar code: every instruction set gives the same bytes.
 *
 * Let w be the weights, m = sum w x / sum w the mean, y = x - m and C = M + m, so that y is stored as S l - C. Given the
 * codes, least squares is closed: with L1 = sum w l, L2 = sum w l^2, YL = sum w y l and W = sum w,
 *     S = YL / (L2 - L1^2 / W),  C = S L1 / W,  error = sum w y^2 + S (S L2 - 2 (YL + C L1)) + C^2 W,
 * because sum w y = 0. Taking the mean away first is what makes this form exact enough to compare errors. Given S and C
 * the code is the nearest level of t = (y + C) / S, and the error S^2 sum w (t - l)^2 is what a stored block will have.
 *
 * A first candidate cuts a little off either end of the range of x, in units of a level; the pair that its codes want by
 * least squares is what it is judged by. The reference walks along one such line of 16 to 37 candidates; here it is
 * a plane, because with importances it is often one end that is better clipped. Everything is done on x * 2^-k with the
 * largest magnitude of the super-block in [1, 2): nothing overflows or vanishes.
 */
#ifndef GGUFTOOL_AFFINE_SEARCH_H
#define GGUFTOOL_AFFINE_SEARCH_H

#include "bytes.h"
#include "gguftool.h"
#include "lanes.h"

#define ROWS 32 /* the most elements of a sub-block */
#define EACH_LANE for (int o = 0; o < LANES; o += VW)
#define EACH_ROW(n) for (int i = 0; i < (n); ++i)

/* How much a candidate takes off the lower and the upper end of the range, in fortieths of a level. */
#define CUT 0.025f
typedef struct {
    short low, high;
} cut;

/* Integers near a sub-block's best pair. */
typedef struct {
    signed char s, m;
} step;

typedef struct {
    float d, dmin;
} factors;

/* How far a search goes. */
typedef struct {
    const cut *cuts;
    int n_cuts, fits;      /* the real search: candidates, a multiple of four, then rounds of codes and fits */
    float from, by;        /* the scan of d and dmin: factors from + k * by on what the largest S (M) needs */
    int scans;
    int n_steps, rounds;   /* pairs tried; rounds of that and of refits */
    int n_starts, settles; /* other d and dmin to start from; rounds for each */
} plan;

#include "affine_plans.h"

/* What distinguishes the types. */
typedef struct {
    int rows;   /* elements of a sub-block */
    int group;  /* sub-blocks (lanes) that share one power of two: a super-block, or one block */
    int levels; /* the largest code */
    int free;   /* whether M may be negative */
} shape;

typedef struct {
    float y[ROWS * LANES], w[ROWS * LANES];
    float mean[LANES], weight[LANES], energy[LANES]; /* m, W, sum w y^2 */
    float low[LANES], high[LANES];                   /* the range of y; it includes x = 0 unless M is free */
    float power[LANES];                              /* x scaled, times this, is x */
} __attribute__((aligned(64))) tile;

/* Real scales of the sub-blocks, and the sums they came from. */
typedef struct {
    float s[LANES], c[LANES], l1[LANES], l2[LANES], yl[LANES];
} __attribute__((aligned(64))) fits;

/* ---- vectors ---- */

#if VW == 16
GT_INLINE vf round_small(vf t) { return (vf)_mm512_roundscale_ps((__m512)t, 8); }
#elif VW == 8
GT_INLINE vf round_small(vf t) { return (vf)_mm256_round_ps((__m256)t, 8); }
#else
GT_INLINE vf round_small(vf t) { return vf_round(t); }
#endif

/* The nearest code of t; 0 for NaN. */
GT_INLINE vf code_of(vf t, vf levels) { return round_small(vf_min(vf_max(t, vf_set1(0.0f)), levels)); }

/* 1 / s, and 0 where s is 0. */
GT_INLINE vf inverse_of(vf s) {
    vi zero = s == vf_set1(0.0f);
    return vf_select(zero, vf_set1(0.0f), vf_set1(1.0f) / vf_select(zero, vf_set1(1.0f), s));
}

/* The binary16 nearest to v > 0, at least the smallest positive and at most the largest finite one; 0 for v <= 0. */
GT_INLINE vf round_to_f16(vf v) {
    vi bits = (vi)v;
    vf normal = (vf)((bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fff);
    vf subnormal = (v + 0.5f) - 0.5f; /* the ulp of [0.5, 1) is 2^-24 */
    vf r = vf_select(bits < 0x38800000, subnormal, normal);
    r = vf_min(vf_max(r, vf_set1(LEAST_SCALE)), vf_set1(LARGEST_SCALE));
    return vf_select(v > vf_set1(0.0f), r, vf_set1(0.0f));
}
GT_INLINE vf storable(vf v, vf power) { return round_to_f16(v * power) * (vf_set1(1.0f) / power); }

/* Lane i of the result is lane i ^ step. */
GT_INLINE vf swapped(vf v, int step) {
#if defined(__GNUC__) && !defined(__clang__)
    vi at;
    for (int i = 0; i < VW; ++i) at[i] = i ^ step;
    return __builtin_shuffle(v, at);
#else
    float p[VW], q[VW];
    vf_store(p, v);
    for (int i = 0; i < VW; ++i) q[i] = p[i ^ step];
    return vf_load(q);
#endif
}

/* Replaces every lane by the sum of its group, added as in sum16: halves onto each other. */
GT_INLINE void add_groups(float v[LANES], int group) {
    vf a[LANES / VW], b[LANES / VW];
    EACH_LANE a[o / VW] = vf_load(v + o);
    for (int step = group / 2; step >= 1; step /= 2) {
        for (int k = 0; k < LANES / VW; ++k) b[k] = step >= VW ? a[k ^ (step / VW)] : swapped(a[k], step);
        for (int k = 0; k < LANES / VW; ++k) a[k] += b[k];
    }
    EACH_LANE vf_store(v + o, a[o / VW]);
}

/* Replaces every lane by the largest of its group. */
GT_INLINE void largest_of_groups(float v[LANES], int group) {
    vf a[LANES / VW], b[LANES / VW];
    EACH_LANE a[o / VW] = vf_load(v + o);
    for (int step = group / 2; step >= 1; step /= 2) {
        for (int k = 0; k < LANES / VW; ++k) b[k] = step >= VW ? a[k ^ (step / VW)] : swapped(a[k], step);
        for (int k = 0; k < LANES / VW; ++k) a[k] = vf_max(a[k], b[k]);
    }
    EACH_LANE vf_store(v + o, a[o / VW]);
}

/* ---- the tile ---- */

/* Fills y with x * 2^-k (zeros where all of x is smaller than any scale), and low, high and power; w with the weights
 * or ones. */
GT_INLINE void load_tile(tile *t, const float *x, const float *w, shape f) {
    float largest[LANES];
    transpose(x, f.rows, f.rows, t->y);
    EACH_LANE {
        vf high = vf_load(t->y + o), low = high;
        EACH_ROW(f.rows) {
            vf v = vf_load(t->y + i * LANES + o);
            high = vf_max(high, v);
            low = vf_min(low, v);
        }
        vf_store(t->low + o, low);
        vf_store(t->high + o, high);
        vf_store(largest + o, vf_min(vf_max(high, -low), vf_set1(FAR)));
    }
    largest_of_groups(largest, f.group);
    EACH_LANE {
        vf far = vf_load(largest + o), power = power_of_two_of(far);
        vf inverse = vf_select(far < vf_set1(0.5f * LEAST_SCALE), vf_set1(0.0f), inverse_power(power));
        vf_store(t->power + o, power);
        EACH_ROW(f.rows) {
            float *p = t->y + i * LANES + o;
            vf_store(p, vf_min(vf_max(vf_load(p), -far), far) * inverse);
        }
        vf_store(t->low + o, vf_max(vf_load(t->low + o), -far) * inverse);
        vf_store(t->high + o, vf_min(vf_load(t->high + o), far) * inverse);
    }
    if (w) transpose(w, f.rows, f.rows, t->w);
    else
        for (int i = 0; i < f.rows * LANES; i += VW) vf_store(t->w + i, vf_set1(1.0f));
}

/* Multiplies the weights by sqrt(mean + v^2), v = y * scale: the reference's choice. */
GT_INLINE void weigh_by_root(tile *t, const float mean[LANES], const float scale[LANES], shape f) {
    EACH_LANE EACH_ROW(f.rows) {
        float *p = t->w + i * LANES + o;
        vf v = vf_load(t->y + i * LANES + o) * vf_load(scale + o);
        vf_store(p, vf_max(vf_load(p) * vf_sqrt(vf_load(mean + o) + v * v), vf_set1(TINY_WEIGHT)));
    }
}

/* Takes the weighted mean away. */
GT_INLINE void center_tile(tile *t, shape f) {
    EACH_LANE {
        vf weight = {0}, sum = {0}, energy = {0}, low = vf_load(t->low + o);
        EACH_ROW(f.rows) {
            vf w = vf_load(t->w + i * LANES + o);
            weight += w;
            sum += w * vf_load(t->y + i * LANES + o);
        }
        vf mean = sum / weight;
        EACH_ROW(f.rows) {
            float *p = t->y + i * LANES + o;
            vf y = vf_load(p) - mean;
            energy += (vf_load(t->w + i * LANES + o) * y) * y;
            vf_store(p, y);
        }
        if (!f.free) low = vf_min(low, vf_set1(0.0f));
        vf_store(t->mean + o, mean);
        vf_store(t->weight + o, weight);
        vf_store(t->energy + o, energy);
        vf_store(t->low + o, low - mean);
        vf_store(t->high + o, vf_load(t->high + o) - mean);
    }
}

/* ---- candidates: this many go through the rows together ---- */

#if VW == 16
#define MANY 4
#else
#define MANY 2
#endif
#define EACH(many) _Pragma("GCC unroll 4") for (int u = 0; u < (many); ++u)

/* L1, L2 and YL for the codes of t = y a + b, of `many` candidates. */
GT_INLINE void moments_of(const tile *t, int o, shape f, const vf *a, const vf *b, int many, vf *l1, vf *l2, vf *yl) {
    const vf levels = vf_set1((float)f.levels);
    vf p[MANY] = {{0}}, q[MANY] = {{0}}, r[MANY] = {{0}};
    for (int i = 0; i < f.rows; ++i) {
        vf y = vf_load(t->y + i * LANES + o), w = vf_load(t->w + i * LANES + o);
        EACH(many) {
            vf l = code_of(y * a[u] + b[u], levels), wl = w * l;
            p[u] += wl;
            q[u] += wl * l;
            r[u] += wl * y;
        }
    }
    EACH(many) {
        l1[u] = p[u];
        l2[u] = q[u];
        yl[u] = r[u];
    }
}

/* sum w (t - l)^2 of t = y a + b. */
GT_INLINE void errors_of(const tile *t, int o, shape f, const vf *a, const vf *b, int many, vf *errors) {
    const vf levels = vf_set1((float)f.levels);
    vf p[MANY] = {{0}};
    for (int i = 0; i < f.rows; ++i) {
        vf y = vf_load(t->y + i * LANES + o), w = vf_load(t->w + i * LANES + o);
        EACH(many) {
            vf v = y * a[u] + b[u], e = v - code_of(v, levels);
            p[u] += (w * e) * e;
        }
    }
    EACH(many) errors[u] = p[u];
}

typedef struct {
    vf s, c, error;
} fit;

/* The error of (s, c) with given codes. */
GT_INLINE vf error_of(const tile *t, int o, vf s, vf c, vf l1, vf l2, vf yl) {
    return (vf_load(t->energy + o) + s * (s * l2 - 2.0f * (yl + c * l1))) + (c * c) * vf_load(t->weight + o);
}

/* Least squares: both parameters if they are allowed and there are two different codes, else S alone with M = 0. */
GT_INLINE fit fit_of(const tile *t, int o, shape f, vf l1, vf l2, vf yl) {
    vf zero = vf_set1(0.0f), mean = vf_load(t->mean + o);
    vf share = l1 / vf_load(t->weight + o), spread = l2 - l1 * share;
    vi flat = spread <= l2 * 0x1p-16f;
    fit r;
    r.s = vf_max(yl / vf_select(flat, vf_set1(1.0f), spread), zero);
    r.s = vf_select(flat, zero, r.s);
    r.c = r.s * share;
    if (!f.free) {
        vi outside = flat | (r.c < mean);
        vf alone = vf_max((yl + mean * l1) / vf_max(l2, vf_set1(0x1p-100f)), zero);
        r.s = vf_select(outside, alone, r.s);
        r.c = vf_select(outside, mean, r.c);
    }
    r.error = error_of(t, o, r.s, r.c, l1, l2, yl);
    return r;
}

/* The best fit so far and its sums; of equals, the first. */
typedef struct {
    fit f;
    vf l1, l2, yl;
} found;

GT_INLINE void keep_fit(const tile *t, int o, shape f, vf l1, vf l2, vf yl, found *best) {
    fit r = fit_of(t, o, f, l1, l2, yl);
    vi wins = r.error < best->f.error;
    best->f.error = vf_select(wins, r.error, best->f.error);
    best->f.s = vf_select(wins, r.s, best->f.s);
    best->f.c = vf_select(wins, r.c, best->f.c);
    best->l1 = vf_select(wins, l1, best->l1);
    best->l2 = vf_select(wins, l2, best->l2);
    best->yl = vf_select(wins, yl, best->yl);
}

/* The best fit of all the plan's cuts, and after some more rounds of codes and fits; a constant if nothing is better. */
GT_INLINE void search_fits(const tile *t, shape f, const plan *p, fits *out) {
    EACH_LANE {
        const float n = (float)f.levels;
        vf l1[MANY], l2[MANY], yl[MANY], a[MANY], b[MANY], zero = vf_set1(0.0f), mean = vf_load(t->mean + o);
        vf low = vf_load(t->low + o), scale = n * inverse_of(vf_load(t->high + o) - low), origin = -low * scale;
        found best = {{zero, f.free ? zero : vf_max(mean, zero), zero}, zero, zero, zero};
        best.f.error = vf_load(t->energy + o) + (best.f.c * best.f.c) * vf_load(t->weight + o);
        for (int k = 0; k < p->n_cuts; k += MANY) {
            EACH(MANY) {
                float off = (float)p->cuts[k + u].low * CUT, stretch = n / ((n - off) - (float)p->cuts[k + u].high * CUT);
                a[u] = scale * stretch;
                b[u] = (origin - off) * stretch;
            }
            moments_of(t, o, f, a, b, MANY, l1, l2, yl);
            EACH(MANY) keep_fit(t, o, f, l1[u], l2[u], yl[u], &best);
        }
        for (int k = 0; k < p->fits; ++k) {
            a[0] = inverse_of(best.f.s);
            b[0] = best.f.c * a[0];
            moments_of(t, o, f, a, b, 1, l1, l2, yl);
            keep_fit(t, o, f, l1[0], l2[0], yl[0], &best);
        }
        vf_store(out->s + o, best.f.s);
        vf_store(out->c + o, best.f.c);
        vf_store(out->l1 + o, best.l1);
        vf_store(out->l2 + o, best.l2);
        vf_store(out->yl + o, best.yl);
    }
}

#endif
