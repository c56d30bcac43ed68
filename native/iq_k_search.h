/* The search for the scales of IQ2_K .. IQ6_K: one binary16 d for 256 weights, sixteen integer scales c, 16 shifts.
 *
 * x = (d * c_j) * (V[q] + shift_j), sixteen weights to a block j. V is an asymmetric codebook (codebook.h), so the sign
 * of c matters, and so does the choice between the table and the shifted one: four cases for every |c|, which share the
 * place in the table, and two by two the lookups. The sixteen blocks of a super-block are in the lanes.
 *
 * The reference tries real scales within five per cent of "the largest weight is the table's end", rounds the best to
 * d * c, rounds the codes, fits d, and never looks back. Here the first search, over scales far beyond on both sides,
 * only finds out where to look; after it nothing is tried but what can be stored: for a given d a window of integers c
 * around each block's own scale, all four cases, codes rounded for exactly d * c, and the exact error. Then, as far as
 * a plan goes, d is refitted by weighted least squares, rounded to binary16, and the windows are searched again; and
 * the same for a few d around the best one.
 */
#ifndef GGUFTOOL_IQ_K_SEARCH_H
#define GGUFTOOL_IQ_K_SEARCH_H

#include "codebook.h"
#include "symmetric_search.h"

#define SUPER 256
#define SUB 16

/* A type: its codebook; scales c from -least to most, in steps (of two: the odd ones), and whether 0 is among them; and
 * the reference's weights: the factor of the mean square, and whether they have a floor without an importance. */
typedef struct {
    const codebook *book;
    float top; /* the codebook's largest magnitude */
    float least, most, step;
    int has_zero;
    float mean_factor;
    int floored;
} iq_type;

/* Candidates for a scale near a real v: the storable one at |v|, and low + k steps from it, k < count. */
typedef struct {
    int low, count;
} window;

/* How far a search goes. The numbers were found by trying, on rows that are in no test. */
typedef struct {
    spread first;   /* around the scale that puts a block's largest weight on the table's end */
    float headroom; /* the first d is this much more than what the largest of the scales found needs */
    window refine;  /* around the blocks' least-squares scales, for the first and every refitted d */
    int refits;
    window around;  /* the same for further starts */
    int settles;    /* refits after each of them */
    int starts;     /* the d found so far times from_start + k * step_start, k < starts */
    float from_start, step_start;
} plan;

/* A super-block on its side: row i holds element i of the sixteen blocks. */
typedef struct {
    float x[SUB * LANES], w[SUB * LANES];
    float energy[LANES];  /* sum w x^2 */
    float largest[LANES]; /* max |x| */
    float power;          /* x here times this is x as given */
} __attribute__((aligned(64))) tile;

/* What a search found for one d: scales, shifts, and the moments of the codes. */
typedef struct {
    float c[LANES], shift[LANES], xl[LANES], ll[LANES];
    float d, error;
} __attribute__((aligned(64))) solution;

/* The best candidate so far in a group of lanes; of equals, the first. */
typedef struct {
    vf score, s, shift;
} best_of;

/* ---- the tile ---- */

static float largest_of(const float v[LANES]) {
    vf m = {0};
    for (int o = 0; o < LANES; o += VW) m = vf_max(m, vf_abs(vf_load(v + o)));
    return vf_max_of(m);
}

/* The reference's weights: importance times the root of sigma + x^2, sigma = factor * mean(x^2); without an importance
 * x^2, in most types plus sigma / 4. */
GT_INLINE void weigh_as_reference(tile *t, const iq_type *type, int has_w) {
    float sums[LANES] = {0};
    for (int o = 0; o < LANES; o += VW) {
        vf a = {0};
        for (int i = 0; i < SUB; ++i) {
            vf x = vf_load(t->x + i * LANES + o);
            a += x * x;
        }
        vf_store(sums + o, a);
    }
    const float sigma = sum16(sums) * (type->mean_factor / SUPER), floor = type->floored ? 0.25f * sigma : 0.0f;
    for (int i = 0; i < SUB * LANES; i += VW) {
        vf x = vf_load(t->x + i), square = x * x;
        vf w = has_w ? vf_load(t->w + i) * vf_sqrt(square + sigma) : square + floor;
        vf_store(t->w + i, vf_max(w, vf_set1(TINY_WEIGHT)));
    }
}

static float measure(tile *t) {
    for (int o = 0; o < LANES; o += VW) {
        vf m = {0};
        for (int i = 0; i < SUB; ++i) m = vf_max(m, vf_abs(vf_load(t->x + i * LANES + o)));
        vf_store(t->largest + o, m);
    }
    return largest_of(t->largest);
}

/* False if the super-block is zero or so small that no scale can express it. */
GT_INLINE int fill_tile(tile *t, const iq_type *type, const float *x, const float *w, int objective) {
    transpose(x, SUB, SUB, t->x);
    float largest = measure(t);
    if (largest < 0.5f * LEAST_SCALE) return 0;
    if (largest > FAR) {
        cut_far(t->x, SUPER);
        largest = measure(t);
    }
    vf power = power_of_two_of(vf_set1(largest)), inverse = inverse_power(power);
    t->power = power[0];
    for (int i = 0; i < SUB * LANES; i += VW) vf_store(t->x + i, vf_load(t->x + i) * inverse);
    if (w && objective != GT_MSE) transpose(w, SUB, SUB, t->w);
    else
        for (int i = 0; i < SUB * LANES; i += VW) vf_store(t->w + i, vf_set1(1.0f));
    if (objective == GT_REF) weigh_as_reference(t, type, w != NULL);
    for (int o = 0; o < LANES; o += VW) {
        vf_store(t->largest + o, vf_load(t->largest + o) * inverse);
        vf_store(t->energy + o, energy_of(t->x + o, t->w + o, SUB));
    }
    return 1;
}

/* ---- over the rows of a group of lanes ---- */

/* For each scale and for its negative, with the table and with the shifted one: sum w (t - l)^2. */
typedef struct {
    vf plus, plus_shifted, minus, minus_shifted;
} four;

#define DUETS (VW == 16 ? 2 : 1)

GT_INLINE void squares_of_four(const float *x, const float *w, const vf inverse[DUETS], const codebook *c,
                               four out[DUETS]) {
    const book b = open_book(c);
    const vf shift = vf_set1(c->shift);
    four sum[DUETS] = {{{0}, {0}, {0}, {0}}};
    for (int i = 0; i < SUB; ++i) {
        vf v = vf_load(x + i * LANES), weight = vf_load(w + i * LANES);
        EACH(DUETS) {
            vf t = v * inverse[u], plus, minus, low, high;
            places_of(t, c, &plus, &minus);
            pair_at(plus, &b, c, &low, &high);
            vf e = t - low, f = t - high;
            sum[u].plus += weight * lesser_square(e, f);
            sum[u].plus_shifted += weight * lesser_square(e - shift, f - shift);
            pair_at(minus, &b, c, &low, &high);
            e = t + low;
            f = t + high;
            sum[u].minus += weight * lesser_square(e, f);
            sum[u].minus_shifted += weight * lesser_square(e + shift, f + shift);
        }
    }
    EACH(DUETS) out[u] = sum[u];
}

/* xl = sum w x l and ll = sum w l^2 at one signed scale. */
GT_INLINE void fit_of(const float *x, const float *w, vf inverse, vf shift, const codebook *c, vf *xl, vf *ll) {
    const book b = open_book(c);
    vf sum = {0}, squares = {0};
    for (int i = 0; i < SUB; ++i) {
        vf v = vf_load(x + i * LANES), weight = vf_load(w + i * LANES);
        vf l = nearest_entry(v * inverse - shift, &b, c) + shift, wl = weight * l;
        sum += wl * v;
        squares += wl * l;
    }
    *xl = sum;
    *ll = squares;
}

GT_INLINE void keep_case(best_of *best, vi wins, vf score, vf s, vf shift) {
    best->score = vf_select(wins, score, best->score);
    best->s = vf_select(wins, s, best->s);
    best->shift = vf_select(wins, shift, best->shift);
}

/* ---- choosing the scales ---- */

/* The storable d nearest to a scale of the tile. */
static float storable(float d, const tile *t) {
    return round_to_f16(vf_set1(d * t->power))[0] * (1.0f / t->power);
}

/* The four cases of a real scale, or of an integer one of which the positive may be one too many. */
GT_INLINE void keep_four(best_of *best, const four *e, vf unit, vf s, vi positive, const codebook *c) {
    const vf none = {0}, shift = vf_set1(c->shift);
    unit *= unit;
    vf a = e->plus * unit, b = e->plus_shifted * unit, f = e->minus * unit, g = e->minus_shifted * unit;
    keep_case(best, positive & (a < best->score), a, s, none);
    keep_case(best, positive & (b < best->score), b, s, shift);
    keep_case(best, f < best->score, f, -s, none);
    keep_case(best, g < best->score, g, -s, shift);
}

/* The least-squares scales of the blocks after a search among real ones. */
GT_INLINE void first_scales(const tile *t, const iq_type *type, const spread *range, float scales[LANES]) {
    for (int o = 0; o < LANES; o += VW) {
        const float *x = t->x + o, *w = t->w + o;
        vf v = vf_max(vf_load(t->largest + o), vf_set1(LEAST_SCALE)) * (1.0f / type->top), xl, ll;
        best_of best = {vf_set1(HOPELESS), v, {0}};
        for (int k = 0; k < range->count; k += DUETS) {
            vf s[DUETS], inverse[DUETS];
            four e[DUETS];
            EACH(DUETS) {
                s[u] = v * factor(range, k + u);
                inverse[u] = vf_set1(1.0f) / s[u];
            }
            squares_of_four(x, w, inverse, type->book, e);
            EACH(DUETS) keep_four(&best, &e[u], s[u], s[u], vi_set1(-1), type->book);
        }
        fit_of(x, w, vf_set1(1.0f) / best.s, best.shift, type->book, &xl, &ll);
        vf_store(scales + o, xl * inverse_of(ll));
    }
}

/* Candidate k of a window: a positive scale, or one more than the largest, which only the negative side has. */
GT_INLINE vf candidate(const iq_type *type, const window *win, int k, vf v) {
    const float start = type->has_zero ? 0.0f : 1.0f;
    if (k >= win->count) k = win->count - 1;
    vf c = (vf_round((v - start) * (1.0f / type->step)) + (float)(win->low + k)) * type->step + start;
    return vf_min(vf_max(c, vf_set1(1.0f)), vf_set1(type->least));
}

/* For one d the best scale of every block in a window around the real scales `around`. */
GT_INLINE void search(const tile *t, const iq_type *type, float d_value, const float around[LANES], const window *win,
                      solution *out) {
    float errors[LANES];
    const vf d = vf_set1(d_value);
    for (int o = 0; o < LANES; o += VW) {
        const float *x = t->x + o, *w = t->w + o;
        vf v = vf_abs(vf_load(around + o)) / d, xl, ll;
        best_of best = {type->has_zero ? vf_load(t->energy + o) : vf_set1(HOPELESS), {0}, {0}};
        for (int k = 0; k < win->count; k += DUETS) {
            vf c[DUETS], s[DUETS], inverse[DUETS];
            four e[DUETS];
            EACH(DUETS) {
                c[u] = candidate(type, win, k + u, v);
                s[u] = d * c[u];
                inverse[u] = vf_set1(1.0f) / s[u];
            }
            squares_of_four(x, w, inverse, type->book, e);
            EACH(DUETS) keep_four(&best, &e[u], s[u], c[u], c[u] <= vf_set1(type->most), type->book);
        }
        fit_of(x, w, inverse_of(d * best.s), best.shift, type->book, &xl, &ll);
        vf_store(errors + o, best.score);
        vf_store(out->c + o, best.s);
        vf_store(out->shift + o, best.shift);
        vf_store(out->xl + o, xl);
        vf_store(out->ll + o, ll);
    }
    out->d = d_value;
    out->error = sum16(errors);
}

/* The least-squares d for the codes of a solution, storable; 0 if there are none. */
static float refitted(const solution *s, const tile *t) {
    float xl[LANES], ll[LANES];
    for (int j = 0; j < LANES; ++j) {
        xl[j] = s->c[j] * s->xl[j];
        ll[j] = (s->c[j] * s->c[j]) * s->ll[j];
    }
    float below = sum16(ll);
    return below > 0.0f ? storable(sum16(xl) / below, t) : 0.0f;
}

/* The least-squares scales of the blocks for the codes of a solution. */
static void own_scales(const solution *s, float scales[LANES]) {
    for (int o = 0; o < LANES; o += VW) vf_store(scales + o, vf_load(s->xl + o) * inverse_of(vf_load(s->ll + o)));
}

/* Searches at d, then at the least-squares d of what was found, and so on; the best of it all. */
GT_INLINE void descend(const tile *t, const iq_type *type, float d, const float around[LANES], const window *win,
                       int refits, solution *best) {
    solution now;
    search(t, type, d, around, win, &now);
    if (now.error < best->error) *best = now;
    for (int r = 0; r < refits; ++r) {
        float own[LANES];
        d = refitted(&now, t);
        if (d == now.d || d == 0.0f) break;
        own_scales(&now, own);
        search(t, type, d, own, win, &now);
        if (now.error < best->error) *best = now;
    }
}

/* d, the scales and the shifts of least error; `best` is zeros, and stays so where nothing is better. */
GT_INLINE void choose_scales(const tile *t, const iq_type *type, const plan *p, solution *best) {
    float around[LANES];
    first_scales(t, type, &p->first, around);
    float largest = largest_of(around), d = storable(largest * (p->headroom / type->most), t);
    if (d * type->most < largest * 0.99f) /* a subnormal that was rounded down */
        d = storable(d + LEAST_SCALE / t->power, t);
    best->error = sum16(t->energy);
    descend(t, type, d, around, &p->refine, p->refits, best);
    if (best->d != 0.0f) {
        d = best->d;
        own_scales(best, around);
    }
    for (int k = 0; k < p->starts; ++k) {
        float start = storable(d * (p->from_start + (float)k * p->step_start), t);
        if (start > 0.0f) descend(t, type, start, around, &p->around, p->settles, best);
    }
}

/* ---- rounding with given scales ---- */

/* The codes of one super-block. */
GT_INLINE void round_codes(const float *x, const iq_type *type, float d, const float c[LANES], const float shift[LANES],
                           uint8_t codes[SUPER]) {
    const book b = open_book(type->book);
    for (int j = 0; j < SUPER / 32; ++j) {
        vi q[GT_NV(32)];
        float inverse[2];
        for (int h = 0; h < 2; ++h) {
            float s = d * c[2 * j + h];
            inverse[h] = s != 0.0f ? 1.0f / s : 0.0f;
        }
        for (int k = 0; k < GT_NV(32); ++k) {
            const int h = k * VW / 16;
            q[k] = nearest_code(vf_load(x + 32 * j + k * VW) * inverse[h] - shift[2 * j + h], &b, type->book);
        }
        vi_store_bytes32(codes + 32 * j, q);
    }
}

#endif
