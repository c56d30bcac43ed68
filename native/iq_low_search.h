/* The search of IQ2_KS, IQ3_KS and IQ2_KL: one binary16 d for a whole row, an integer scale c for each 32 weights.
 *
 * The codebooks are not symmetric: the sign of c and, but for IQ2_KL, the shift bit double what a scale can do;
 * together they are a block's variants, and all are tried. Sixteen blocks are in the lanes.
 *
 * A row may be of any length, so it is gone over several times instead of being kept. The first time every block is
 * searched among real scales, each variant at a dozen of them; a trial's codes leave two moments, with which the error
 * at any scale nearby is a quadratic; and so, for dozens of d that the row might have (d in the lanes), the error with
 * the best integer scales is estimated. (The true error is not above the estimate: codes can be chosen again.) The best
 * d is then searched exactly, with a window of c around what each variant would choose for itself, refitted by least
 * squares, searched again, and the last time over the codes are written. What a variant would choose is kept, as the
 * upper half of a float, eight bytes for a block, where the row's blocks will be written: there is room for it and
 * nothing else there.
 */
#ifndef GGUFTOOL_IQ_LOW_SEARCH_H
#define GGUFTOOL_IQ_LOW_SEARCH_H

#include "iq_low_tile.h"

/* ---- the first time over the row: real scales, and which d would suit them ---- */

/* The magnitude of the scale that puts the largest element on the largest entry; of zeros, any. */
GT_INLINE vf natural_scale(const tile *t, const type_of *type, int o) {
    return vf_max(vf_load(t->largest + o), vf_set1(LEAST_SCALE)) * (1.0f / type->top);
}

/* What each trial's codes come to: twice xl, and ll, a block's trials in a row. */
typedef struct {
    float xl[VARIANTS][TRIALS * LANES], ll[VARIANTS][TRIALS * LANES];
} __attribute__((aligned(64))) bank;

/* Each variant's own scale of each block, and the bank. */
GT_INLINE void try_scales(int kind, const row *r, tile *t, bank *turned) {
    const type_of *type = r->type;
    const int many = kind == DUOS ? 2 : 4;
    bank rows = {{{0}}, {{0}}};
    for (int o = 0; o < LANES; o += VW) {
        vf natural = natural_scale(t, type, o), own[VARIANTS], gain[VARIANTS] = {{0}};
        for (int v = 0; v < many; ++v) own[v] = natural;
        for (int k = 0; k < r->p->trials.count; ++k) {
            moments m;
            moments_of_variants(kind, t, o, vf_set1(1.0f) / (natural * factor(&r->p->trials, k)), &m);
            for (int v = 0; v < many; ++v) {
                vf above = vf_max(m.xl[v], vf_set1(0.0f)), fit = above / m.ll[v], now = fit * above;
                vi wins = now > gain[v];
                gain[v] = vf_select(wins, now, gain[v]);
                own[v] = vf_select(wins, fit, own[v]);
                vf_store(rows.xl[v] + k * LANES + o, above + above);
                vf_store(rows.ll[v] + k * LANES + o, m.ll[v]);
            }
        }
        for (int v = 0; v < many; ++v) vf_store(t->own[v] + o, own[v]);
    }
    for (int v = 0; v < many; ++v) {
        transpose(rows.xl[v], LANES, LANES, turned->xl[v]);
        transpose(rows.ll[v], LANES, LANES, turned->ll[v]);
    }
}

/* A candidate in 1 .. limit. */
GT_INLINE vf candidate(vf middle, int k, vf limit) { return vf_min(vf_max(middle + (float)k, vf_set1(1.0f)), limit); }

/* For VW d of one sign the sum of the blocks' least estimated errors, less their energy. */
GT_INLINE vf estimate(const row *r, const tile *t, const bank *seen, int blocks, vf d, int negative) {
    const spread *range = &r->p->trials;
    const window *scan = &r->p->scan;
    const vf last = vf_set1((float)range->count - 1.0f), inverse = vf_set1(1.0f) / d;
    const float from = range->from / range->step;
    vf total = {0};
    for (int j = 0; j < blocks; ++j) {
        float natural = t->largest[j] > LEAST_SCALE ? t->largest[j] : LEAST_SCALE;
        float unit = 1.0f / (natural * (1.0f / r->type->top) * range->step);
        vf best = {0};
        for (int v = 0; v < variants_of(r->type); ++v) {
            vf limit = vf_set1((v & 1) != negative ? r->type->most : r->type->most - 1.0f);
            vf middle = vf_round(vf_min(t->own[v][j] * inverse, limit));
            for (int k = scan->low; k < scan->low + scan->count; ++k) {
                vf scale = d * candidate(middle, k, limit);
                vi at = vi_round(vf_min(vf_max(scale * unit - from, vf_set1(0.0f)), last));
                vf xl = one_of_16(seen->xl[v] + j * LANES, at), ll = one_of_16(seen->ll[v] + j * LANES, at);
                best = vf_min(best, scale * (scale * ll - xl));
            }
        }
        total += best;
    }
    return total;
}

/* The d nearest to a magnitude that can be stored, but the next one up where more than a tenth would be lost. */
GT_INLINE float storable(float d, float power) { return round_to_f16(vf_set1(d * power))[0] * (1.0f / power); }
GT_INLINE float storable_above(float d, float power) {
    float v = storable(d, power);
    return v < d * 0.9f ? storable(v + LEAST_SCALE / power, power) : v;
}

/* The d that are estimated, and what they come to; of each two groups the second is of negative d. The last group lies
 * further and further below the others. */
#define FAR_BELOW 0.7f
typedef struct {
    float d[(GROUPS + 1) * LANES], error[(GROUPS + 1) * LANES];
} __attribute__((aligned(64))) survey;

GT_INLINE void look_around(int kind, const row *r, float largest, survey *s) {
    float d = largest / (r->type->top * r->type->most) * r->p->from;
    for (int k = 0; k < r->p->groups / 2 * LANES; ++k, d *= r->p->ratio)
        for (int m = 0; m < 2; ++m) {
            int at = (k / LANES * 2 + m) * LANES + k % LANES;
            s->d[at] = storable_above(d, r->power);
            s->error[at] = 0.0f;
        }
    d = s->d[0];
    for (int at = r->p->groups * LANES; at < (r->p->groups + 1) * LANES; ++at) {
        d *= FAR_BELOW;
        s->d[at] = storable_above(d, r->power);
        s->error[at] = 0.0f;
    }
    for (int64_t i = 0; i < r->n; i += BATCH) {
        tile t;
        bank seen;
        int blocks = fill_tile(&t, r, i);
        try_scales(kind, r, &t, &seen);
        write_notes(r, i, &t, blocks);
        for (int k = 0; k < (r->p->groups + 1) * LANES; k += VW)
            vf_store(s->error + k, vf_load(s->error + k) +
                                       estimate(r, &t, &seen, blocks, vf_load(s->d + k), k / LANES % 2));
    }
}

GT_INLINE int most_promising(const survey *s, int count) {
    int best = 0;
    for (int k = 1; k < count; ++k)
        if (s->error[k] < s->error[best]) best = k;
    return best;
}

/* Takes the most promising d that is left, signed; of equals the first. 0 if there is none. */
GT_INLINE float take_best(survey *s, int count) {
    const int best = most_promising(s, count);
    if (s->error[best] == HOPELESS) return 0.0f;
    float d = best / LANES % 2 ? -s->d[best] : s->d[best], given = s->d[best];
    for (int k = best / LANES % 2 * LANES; k < count; ++k)
        if (s->d[k] == given && k / LANES % 2 == best / LANES % 2) s->error[k] = HOPELESS;
    return d;
}

/* ---- the other times: integer scales for one d ---- */

/* What was found for the sixteen blocks of a tile. */
typedef struct {
    float c[LANES], shift[LANES];
} solution;

/* The error of a row at one d, and what its least-squares d is made of. */
typedef struct {
    float d;
    double error, above, below;
} outcome;

/* The best c and shift of each block, in a window around what each variant would choose for itself. */
GT_INLINE void search(int kind, const row *r, const tile *t, float d, solution *s, outcome *sum) {
    const window *win = &r->p->search;
    float errors[LANES], above[LANES], below[LANES];
    for (int o = 0; o < LANES; o += VW) {
        found best = {vf_load(t->energy + o), {0}};
        vf best_shift = {0}, magnitude = vf_set1(d < 0.0f ? -d : d), xl, ll;
        for (int v = 0; v < (kind == DUOS ? 2 : 4); ++v) {
            const int negative = (v & 1) != (d < 0.0f);
            const vf limit = vf_set1(negative ? r->type->most : r->type->most - 1.0f);
            const vf middle = vf_round(vf_min(vf_load(t->own[v] + o) / magnitude, limit));
            const vf shift = vf_set1(v & 2 ? r->type->shift : 0.0f);
            for (int k = 0; k < win->count; k += PAIRS) {
                vf c[PAIRS], scale[PAIRS], inverse[PAIRS], e[PAIRS];
                EACH(PAIRS) {
                    c[u] = candidate(middle, win->low + k + u, limit) * (negative ? -1.0f : 1.0f);
                    scale[u] = d * c[u];
                    inverse[u] = vf_set1(1.0f) / scale[u];
                }
                errors_at(kind, t, o, inverse, shift, e);
                EACH(PAIRS) {
                    e[u] *= scale[u] * scale[u];
                    vi wins = e[u] < best.score;
                    keep(&best, wins, e[u], c[u]);
                    best_shift = vf_select(wins, shift, best_shift);
                }
            }
        }
        vf inverse = inverse_of(d * best.s);
        moments_at(kind, t, o, inverse, best_shift, &xl, &ll);
        vf_store(s->c + o, best.s);
        vf_store(s->shift + o, best_shift);
        vf_store(errors + o, best.score);
        vf_store(above + o, best.s * xl);
        vf_store(below + o, (best.s * best.s) * ll);
    }
    sum->error += (double)sum16(errors);
    sum->above += (double)sum16(above);
    sum->below += (double)sum16(below);
}

GT_INLINE outcome search_row(int kind, const row *r, float d) {
    outcome sum = {d, 0.0, 0.0, 0.0};
    for (int64_t i = 0; i < r->n; i += BATCH) {
        tile t;
        solution s;
        read_notes(r, i, &t, fill_tile(&t, r, i));
        search(kind, r, &t, d, &s, &sum);
    }
    return sum;
}

/* The least-squares d for the codes of an outcome, where it can be stored and is better; else the outcome's own. */
GT_INLINE float refitted(const outcome *o, float power) {
    if (!(o->below > 0.0)) return o->d;
    float fit = (float)(o->above / o->below), d = storable(fit < 0.0f ? -fit : fit, power);
    if (fit < 0.0f) d = -d;
    double now = (double)o->d * ((double)o->d * o->below - 2.0 * o->above);
    return (double)d * ((double)d * o->below - 2.0 * o->above) < now ? d : o->d;
}

/* The d of least error; the notes are in the row's bytes then. */
GT_INLINE float choose_d(int kind, const row *r, float largest) {
    survey s;
    outcome best = {0.0f, 0x1p1000, 0.0, 0.0};
    for (int again = 0; again < 3; ++again) { /* where the largest weights hardly matter, d lies far below */
        look_around(kind, r, largest, &s);
        int k = most_promising(&s, (r->p->groups + 1) * LANES);
        if (k < r->p->groups * LANES) break;
        largest = s.d[k] * (r->type->top * r->type->most);
    }
    for (int k = 0; k < r->p->starts; ++k) {
        float d = take_best(&s, r->p->groups * LANES);
        if (d == 0.0f) break;
        outcome now = search_row(kind, r, d);
        if (now.error < best.error) best = now;
    }
    for (int k = 0; k < r->p->refits; ++k) {
        float d = refitted(&best, r->power);
        if (d == best.d) break;
        outcome now = search_row(kind, r, d);
        if (!(now.error < best.error)) break;
        best = now;
    }
    return refitted(&best, r->power);
}

#endif
