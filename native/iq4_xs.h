/* The search of IQ4_XS: a binary16 scale d for 256 weights and eight integer sub-scales c, two super-blocks at a time.
 *
 * A d fixes the scales that the eight blocks can have, and which d suits them all is luck: it has to be tried. Trying
 * one exactly costs several passes over the weights of every block. But the first search has left each tried scale's
 * codes as two moments, and with them the error at any scale nearby is a quadratic: so dozens of d, all sub-scales in a
 * window and both signs are estimated from tables, d in the lanes, for the price of a few passes. (The true error
 * is not above the estimate: codes can be chosen again.) The best of every sixteen d is then searched exactly, nothing
 * but what can be stored, and the best of these refitted by least squares and searched once more.
 *
 * Two of 32 d: 0.9085 of the reference's error with an importance, 0.921 without; one of sixteen and no refit (fast):
 * 0.913 and 0.925 in less than half the time; sixteen of 256 (best): 0.9076 and 0.920 in seven times the time. Free
 * real scales, which the format has not, would come to 0.895.
 */
#ifndef GGUFTOOL_IQ4_XS_H
#define GGUFTOOL_IQ4_XS_H

#include "iq4_search.h"

#define MOST 31.0f /* the largest sub-scale; the least is -32 */

/* Candidates for a sub-scale near a real v: round(|v|) + low + k, k < count, with both signs. */
typedef struct {
    int low, count;
} window;

/* How far a search goes. The numbers were found by trying, on rows that are in no test. */
typedef struct {
    spread first;  /* around a block's natural scale, at most BANK of them */
    window scan;   /* around the blocks' own scales, for the d that are estimated */
    window search; /* the same for those that are searched */
    window settle; /* around the least-squares scales of the codes found, for a refitted d */
    int refits;
    int groups; /* of LANES d each, of which one is searched: what the largest own scale needs * (from + k * step) */
    float from, step;
} xs_plan;

#define GROUPS(groups, from, to) (groups), (from), ((to) - (from)) / ((groups) * LANES - 1.0f)

/* By effort. */
static const xs_plan XS[3] = {
    {SPREAD(0.65f, 1.5f, 12, 1), {-1, 3}, {-1, 4}, {0, 0}, 0, GROUPS(1, 0.97f, 1.12f)},
    {SPREAD(0.63f, 1.55f, 24, 1), {-2, 6}, {-2, 6}, {0, 1}, 1, GROUPS(2, 0.97f, 1.3f)},
    {SPREAD(0.6f, 1.6f, 32, 1), {-5, 12}, {-5, 12}, {-2, 6}, 4, GROUPS(16, 0.8f, 1.5f)}};

/* What a search found for each super-block's d; d and error stand in all of its lanes. */
typedef struct {
    float c[LANES], xl[LANES], ll[LANES], d[LANES], error[LANES];
} __attribute__((aligned(64))) solution;

/* A candidate in 1 .. 32. */
GT_INLINE vf candidate(const window *win, int k, vf v) {
    if (k >= win->count) k = win->count - 1;
    return vf_min(vf_max(vf_round(v) + (float)(win->low + k), vf_set1(1.0f)), vf_set1(MOST + 1.0f));
}

GT_INLINE found search_window(const float *x, const float *w, vf d, vf v, const window *win, found best) {
    for (int k = 0; k < win->count; k += DUETS) {
        vf c[DUETS], s[DUETS], inverse[DUETS], e[DUETS], f[DUETS];
        EACH(DUETS) {
            c[u] = candidate(win, k + u, v);
            s[u] = d * c[u];
            inverse[u] = vf_set1(1.0f) / s[u];
        }
        squares_of_both(x, w, inverse, e, f);
        EACH(DUETS) {
            e[u] *= s[u] * s[u];
            f[u] *= s[u] * s[u];
            keep(&best, (e[u] < best.score) & (c[u] <= vf_set1(MOST)), e[u], c[u]);
            keep(&best, f[u] < best.score, f[u], -c[u]);
        }
    }
    return best;
}

/* For each d the best sub-scales in a window around the real scales `around`. */
GT_INLINE void search(const tile *t, const float d_of[LANES], const float around[LANES], const window *win,
                      solution *out) {
    for (int o = 0; o < LANES; o += VW) {
        const float *x = t->x + o, *w = t->w + o;
        vf d = vf_load(d_of + o), xl, ll;
        found best = {vf_load(t->energy + o), {0}};
        best = search_window(x, w, d, vf_abs(vf_load(around + o)) / d, win, best);
        fit_of(x, w, inverse_of(d * best.s), &xl, &ll);
        vf_store(out->d + o, d);
        vf_store(out->error + o, best.score);
        vf_store(out->c + o, best.s);
        vf_store(out->xl + o, xl);
        vf_store(out->ll + o, ll);
    }
    sum_of_eight(out->error);
}

/* Scales of the tile as they can be stored. */
GT_INLINE vf storable(vf d, vf power) { return round_to_f16(d * power) * (1.0f / power); }

/* The least-squares d for the codes of a solution, storable; as it was if all sub-scales are 0. */
static void refit(const solution *s, const tile *t, float d[LANES]) {
    float above[LANES], below[LANES];
    for (int o = 0; o < LANES; o += VW) {
        vf c = vf_load(s->c + o);
        vf_store(above + o, c * vf_load(s->xl + o));
        vf_store(below + o, (c * c) * vf_load(s->ll + o));
    }
    sum_of_eight(above);
    sum_of_eight(below);
    for (int o = 0; o < LANES; o += VW) {
        vf b = vf_load(below + o), fit = storable(vf_load(above + o) * inverse_of(b), vf_load(t->power + o));
        vf_store(d + o, vf_select(b > vf_set1(0.0f), fit, vf_load(s->d + o)));
    }
}

/* The least-squares scales of the blocks for the codes of a solution. */
static void own_scales(const solution *s, float scales[LANES]) {
    for (int o = 0; o < LANES; o += VW) vf_store(scales + o, vf_load(s->xl + o) / vf_load(s->ll + o));
}

/* Takes over the super-blocks that have become better. */
static void keep_better(solution *best, const solution *now) {
    for (int at = 0; at < LANES; at += SUBS) {
        const size_t size = SUBS * sizeof(float);
        if (!(now->error[at] < best->error[at])) continue;
        memcpy(best->c + at, now->c + at, size);
        memcpy(best->xl + at, now->xl + at, size);
        memcpy(best->ll + at, now->ll + at, size);
        memcpy(best->d + at, now->d + at, size);
        memcpy(best->error + at, now->error + at, size);
    }
}

/* One of 32 numbers, lane by lane: of sixteen and, LANES rows further, of sixteen more. */
GT_INLINE vf one_of_32(const float *row, vi at) {
    const float *more = row + LANES * LANES;
#if VW == 16
    return (vf)_mm512_permutex2var_ps(_mm512_load_ps(row), (__m512i)at, _mm512_load_ps(more));
#elif VW == 8
    vf low = one_of_16(row, at), high = one_of_16(more, at);
    return (vf)_mm256_blendv_ps((__m256)low, (__m256)high, (__m256)(at << 27));
#else
    vi inside = at & 15;
    return vf_select(at > inside, one_of_16(more, inside), one_of_16(row, inside));
#endif
}

/* What the first search leaves behind: its moments, a block's sixteen or 32 in rows; each block's natural scale and the
 * one that it would choose for itself; and the d that reaches the largest of these in the super-block with MOST. */
typedef struct {
    bank moments;
    float natural[LANES], own[LANES], reach[LANES];
} __attribute__((aligned(64))) survey;

GT_INLINE void look_around(const tile *t, const spread *range, survey *found_here) {
    bank rows;
    for (int o = 0; o < LANES; o += VW) {
        vf v = natural_scale(t, o);
        found one = search_gains(t->x + o, t->w + o, v, range, (found){{0}, v}, &rows, o);
        vf_store(found_here->natural + o, v);
        vf_store(found_here->own + o, one.s);
        vf_store(found_here->reach + o, vf_abs(one.s));
    }
    largest_of_eight(found_here->reach);
    for (int j = 0; j < LANES; ++j) found_here->reach[j] *= 1.0f / MOST;
    for (int m = 0; m < 2; ++m)
        for (int k = 0; k < range->count; k += LANES) {
            transpose(rows.xl[m] + k * LANES, LANES, LANES, found_here->moments.xl[m] + k * LANES);
            transpose(rows.ll[m] + k * LANES, LANES, LANES, found_here->moments.ll[m] + k * LANES);
        }
}

/* For VW d of super-block h the sum of its blocks' least estimated errors, less their energy. */
GT_INLINE vf estimate(const survey *s, const spread *range, const window *win, int h, vf d) {
    vf total = {0}, inverse = 1.0f / d, last = vf_set1((float)range->count - 1.0f);
    for (int j = h * SUBS; j < h * SUBS + SUBS; ++j) {
        vf middle = vf_round(vf_abs(s->own[j] * inverse)), best = {0};
        float unit = 1.0f / (s->natural[j] * range->step), from = range->from / range->step;
        for (int k = 0; k < win->count; ++k) {
            vf c = vf_min(vf_max(middle + (float)(win->low + k), vf_set1(1.0f)), vf_set1(MOST)), scale = d * c;
            vi at = vi_round(vf_min(vf_max(scale * unit - from, vf_set1(0.0f)), last));
            for (int m = 0; m < 2; ++m) {
                vf xl = one_of_32(s->moments.xl[m] + j * LANES, at), ll = one_of_32(s->moments.ll[m] + j * LANES, at);
                best = vf_min(best, scale * (scale * ll - (xl + xl)));
            }
        }
        total += best;
    }
    return total;
}

/* What can be stored next to d, but the next one up where more than a tenth would be lost: else c would not reach. */
GT_INLINE vf storable_above(vf d, vf power) {
    vf v = storable(d, power);
    return vf_select(v < d * 0.9f, storable(v + LEAST_SCALE / power, power), v);
}

/* The most promising of a group of d, super-block by super-block; of equals, the first. */
GT_INLINE void choose_d(const tile *t, const survey *s, const xs_plan *p, int group, float d[LANES]) {
    for (int h = 0; h < 2; ++h) {
        float tried[LANES], errors[LANES];
        vf power = vf_set1(t->power[h * SUBS]);
        int best = 0;
        for (int k = 0; k < LANES; ++k)
            tried[k] = s->reach[h * SUBS] * (p->from + (float)(group * LANES + k) * p->step);
        for (int o = 0; o < LANES; o += VW) {
            vf v = storable_above(vf_load(tried + o), power);
            vf_store(tried + o, v);
            vf_store(errors + o, estimate(s, &p->first, &p->scan, h, v));
        }
        for (int k = 1; k < LANES; ++k)
            if (errors[k] < errors[best]) best = k;
        for (int j = 0; j < SUBS; ++j) d[h * SUBS + j] = tried[best];
    }
}

/* d and the sub-scales of least error. */
GT_INLINE void choose_xs_scales(const tile *t, const xs_plan *p, solution *best) {
    float d[LANES], own[LANES];
    survey seen;
    solution now;
    look_around(t, &p->first, &seen);
    for (int j = 0; j < LANES; ++j) best->error[j] = HOPELESS;
    for (int g = 0; g < p->groups; ++g) {
        choose_d(t, &seen, p, g, d);
        search(t, d, seen.own, &p->search, &now);
        keep_better(best, &now);
    }
    for (int r = 0; r < p->refits; ++r) {
        refit(best, t, d);
        own_scales(best, own);
        search(t, d, own, &p->settle, &now);
        keep_better(best, &now);
    }
}

#endif
