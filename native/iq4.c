/* IQ4_NL and IQ4_XS: sixteen levels that are closer together near zero.
 *
 * x = s * V[q], V = -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113. IQ4_NL: blocks of 32, s = d; 18 bytes: d,
 * then 16 with the codes of elements 0..15 in the low and 16..31 in the high nibbles. IQ4_XS: super-blocks of 256,
 * s = d * c_j, c in -32..31, for each 32; 136 bytes: d, a word of the high bit pairs of the eight c + 32, four bytes of
 * their low nibbles, eight times 16 bytes of nibbles.
 */
#include "iq4_search.h"

#define SUPER 256
#define SUBS (SUPER / BLOCK)
#define MOST 31.0f /* the largest sub-scale; the least is -32 */

/* Sixteen blocks on their sides: row i holds element i of each. */
typedef struct {
    float x[BATCH], w[BATCH];
    float power[LANES];   /* x here times this is x as given: its own for each block or for each super-block */
    float largest[LANES]; /* max |x| */
    float energy[LANES];  /* sum w x^2: the error of zeros */
} __attribute__((aligned(64))) tile;

/* ---- the tile ---- */

/* Lane by lane the largest, or the sum, of its super-block's eight lanes; the sum in one fixed order. */
static void largest_of_eight(float v[LANES]) {
    for (int h = 0; h < LANES; h += SUBS) {
        float m = v[h];
        for (int j = 1; j < SUBS; ++j) m = v[h + j] > m ? v[h + j] : m;
        for (int j = 0; j < SUBS; ++j) v[h + j] = m;
    }
}
static void sum_of_eight(float v[LANES]) {
    for (int h = 0; h < LANES; h += SUBS) {
        float *p = v + h, s = ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
        for (int j = 0; j < SUBS; ++j) p[j] = s;
    }
}

/* The reference's weights: importance times the root of 2 mean(x^2) + x^2, the mean over the (super-)block; x^2 without
 * an importance. */
static void weigh_as_reference(tile *t, int has_w, int super) {
    float sums[LANES];
    for (int o = 0; o < LANES; o += VW) {
        vf a = {0};
        for (int i = 0; i < BLOCK; ++i) {
            vf x = vf_load(t->x + i * LANES + o);
            a += x * x;
        }
        vf_store(sums + o, a);
    }
    if (super) sum_of_eight(sums);
    for (int o = 0; o < LANES; o += VW) {
        vf twice_mean = vf_load(sums + o) * (super ? 2.0f / SUPER : 2.0f / BLOCK);
        for (int i = o; i < BATCH; i += LANES) {
            vf x = vf_load(t->x + i), w = has_w ? vf_load(t->w + i) * vf_sqrt(twice_mean + x * x) : x * x;
            vf_store(t->w + i, vf_max(w, vf_set1(TINY_WEIGHT)));
        }
    }
}

static void fill_tile(tile *t, const float *x, const float *w, int objective, int super) {
    transpose(x, BLOCK, BLOCK, t->x);
    cut_far(t->x, BATCH);
    if (w && objective != GT_MSE) transpose(w, BLOCK, BLOCK, t->w);
    else
        for (int i = 0; i < BATCH; i += VW) vf_store(t->w + i, vf_set1(1.0f));
    for (int o = 0; o < LANES; o += VW) {
        vf m = {0};
        for (int i = o; i < BATCH; i += LANES) m = vf_max(m, vf_abs(vf_load(t->x + i)));
        vf_store(t->largest + o, m);
    }
    memcpy(t->power, t->largest, sizeof t->power);
    if (super) largest_of_eight(t->power);
    for (int o = 0; o < LANES; o += VW) {
        vf power = power_of_two_of(vf_load(t->power + o)), inverse = inverse_power(power);
        for (int i = o; i < BATCH; i += LANES) vf_store(t->x + i, vf_load(t->x + i) * inverse);
        vf_store(t->largest + o, vf_load(t->largest + o) * inverse);
        vf_store(t->power + o, power);
    }
    if (objective == GT_REF) weigh_as_reference(t, w != NULL, super);
    for (int o = 0; o < LANES; o += VW) vf_store(t->energy + o, energy_of(t->x + o, t->w + o, BLOCK));
}

/* The sixteen blocks from x on; the last of a row are followed by zeros. */
GT_INLINE void fill_from_row(tile *t, const float *x, const float *w, int64_t left, int objective, int super) {
    float padded_x[BATCH], padded_w[BATCH];
    if (left < BATCH) {
        memset(padded_x, 0, sizeof padded_x);
        memcpy(padded_x, x, (size_t)left * sizeof *x);
        x = padded_x;
        for (int i = 0; w && i < BATCH; ++i) padded_w[i] = i < left ? w[i] : 1.0f;
        if (w) w = padded_w;
    }
    fill_tile(t, x, w, objective, super);
}

/* The scale that puts the largest element at the end of the codebook; of zeros, any. */
GT_INLINE vf natural_scale(const tile *t, int o) {
    return vf_max(vf_load(t->largest + o), vf_set1(LEAST_SCALE)) * (1.0f / TOP);
}

/* ---- IQ4_NL ---- */

/* How far a search goes. The numbers were found by trying, on rows that are in no test. */
typedef struct {
    spread first;  /* around the natural scale */
    spread second; /* around the best of these */
    int refits;    /* then by least squares, rounded */
} nl_plan;

/* By effort. */
static const nl_plan NL[3] = {{SPREAD(0.7f, 1.35f, 8, 1), NO_SPREAD, 1},
                              {SPREAD(0.65f, 1.45f, 40, 1), SPREAD(0.98f, 1.02f, 8, 1), 3},
                              {SPREAD(0.4f, 1.8f, 512, 1), SPREAD(0.98f, 1.02f, 32, 1), 8}};

/* Where a step of binary16 is coarse, for it is subnormal, the steps around a scale are tried. */
#define COARSE (64 * LEAST_SCALE)
#define STEPS 2
GT_INLINE found search_steps(const float *x, const float *w, vf s, vf power, found best) {
    const vf hardly = vf_set1(2.0f * COARSE), given = s * power;
    vi coarse = (given < vf_set1(COARSE)) & (best.score > vf_set1(0.0f));
    if (vf_min_of(vf_select(coarse, given, hardly)) == hardly[0]) return best;
    for (int k = -STEPS; k <= STEPS; ++k) {
        vf e[DUETS], f[DUETS], inverse[DUETS];
        s = vf_max(given + (float)k * LEAST_SCALE, vf_set1(LEAST_SCALE)) * (1.0f / power);
        EACH(DUETS) inverse[u] = 1.0f / s;
        squares_of_both(x, w, inverse, e, f);
        e[0] *= s * s;
        f[0] *= s * s;
        keep(&best, coarse & (e[0] < best.score), e[0], s);
        keep(&best, coarse & (f[0] < best.score), f[0], -s);
    }
    return best;
}

/* The scale of each block: refitted and rounded to what can be stored, and only that compared. */
GT_INLINE void choose_nl_scales(const tile *t, const nl_plan *p, float d[LANES]) {
    for (int o = 0; o < LANES; o += VW) {
        const float *x = t->x + o, *w = t->w + o;
        vf power = vf_load(t->power + o), v = natural_scale(t, o), xl, ll;
        found best = {{0}, v};
        best = search_gains(x, w, v, &p->first, best);
        best = search_gains(x, w, best.s, &p->second, best);
        vf fit = best.s, s;
        best = (found){vf_load(t->energy + o), {0}};
        for (int r = 0;; ++r) {
            s = round_to_f16(vf_abs(fit) * power) * sign_of(fit) * (1.0f / power);
            vf e = fit_of(x, w, vf_set1(1.0f) / s, &xl, &ll) * (s * s);
            keep(&best, e < best.score, e, s);
            if (r == p->refits) break;
            fit = xl / ll;
        }
        best = search_steps(x, w, vf_abs(s), power, best);
        vf_store(d + o, best.s * power);
    }
}

static void encode_nl(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    const nl_plan *p = &NL[opt->effort];
    for (int64_t i = 0; i < n; i += BATCH) {
        float d[LANES];
        tile t;
        fill_from_row(&t, x + i, w ? w + i : NULL, n - i, opt->objective, 0);
        choose_nl_scales(&t, p, d);
        for (int j = 0; j < LANES && i + j * BLOCK < n; ++j, out += 18) {
            uint8_t codes[BLOCK];
            round_block(x + i + j * BLOCK, d[j], codes);
            u16_store(out, f16_from_scale(d[j]));
            pack_nibbles(codes, out + 2);
        }
    }
}

/* ---- IQ4_XS ---- */

/* Candidates for a sub-scale near a real v: round(|v|) + low + k, k < count, with both signs. */
typedef struct {
    int low, count;
} window;

typedef struct {
    spread first;   /* around a block's natural scale */
    float headroom; /* the first d is this much more than what the largest of the scales found needs */
    window refine;  /* around the blocks' least-squares scales, for the first and every refitted d */
    int refits;
    window around;  /* the same for further starts */
    int settles;    /* refits after each of them */
    int starts;     /* the d found so far times from_start + k * step_start, k < starts */
    float from_start, step_start;
} xs_plan;

static const xs_plan XS[3] = {
    {SPREAD(0.7f, 1.35f, 8, 1), 1.0f, {0, 1}, 1, {0, 1}, 0, 0, 1.0f, 0.0f},
    {SPREAD(0.65f, 1.45f, 32, 1), 1.0f, {-1, 3}, 3, {-1, 3}, 0, 6, 0.94f, 0.03f},
    {SPREAD(0.4f, 1.8f, 256, 1), 1.0f, {-4, 9}, 5, {-6, 13}, 2, 41, 0.8f, 0.01f}};

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

/* Scales of the tile as they can be stored; those that are 0 or less stay. */
GT_INLINE vf storable(vf d, vf power) { return round_to_f16(d * power) * (1.0f / power); }

/* The least-squares d for the codes of a solution, storable; 0 if there are none. */
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
        vf_store(d + o, vf_select(b > vf_set1(0.0f), fit, b));
    }
}

/* The least-squares scales of the blocks for the codes of a solution. */
static void own_scales(const solution *s, float scales[LANES]) {
    for (int o = 0; o < LANES; o += VW) vf_store(scales + o, vf_load(s->xl + o) / vf_load(s->ll + o));
}

/* Takes over the super-blocks that are still searched and have become better. */
static void keep_better(solution *best, const solution *now, const int alive[2]) {
    for (int h = 0; h < 2; ++h) {
        const size_t at = (size_t)h * SUBS, size = SUBS * sizeof(float);
        if (!alive[h] || !(now->error[at] < best->error[at])) continue;
        memcpy(best->c + at, now->c + at, size);
        memcpy(best->xl + at, now->xl + at, size);
        memcpy(best->ll + at, now->ll + at, size);
        memcpy(best->d + at, now->d + at, size);
        memcpy(best->error + at, now->error + at, size);
    }
}

/* Searches at d, then at the least-squares d of what was found, and so on; the best of it all. A super-block whose d
 * repeats is done; that the lanes of the other go on changes nothing for it. */
GT_INLINE void descend(const tile *t, const float start[LANES], const float around[LANES], const window *win,
                       int refits, solution *best) {
    solution now;
    int alive[2] = {1, 1};
    search(t, start, around, win, &now);
    keep_better(best, &now, alive);
    for (int r = 0; r < refits; ++r) {
        float own[LANES], d[LANES];
        refit(&now, t, d);
        for (int h = 0; h < 2; ++h) {
            const int at = h * SUBS;
            if (d[at] == now.d[at] || d[at] == 0.0f) alive[h] = 0;
            if (!alive[h]) memcpy(d + at, now.d + at, SUBS * sizeof *d);
        }
        if (!alive[0] && !alive[1]) return;
        own_scales(&now, own);
        search(t, d, own, win, &now);
        keep_better(best, &now, alive);
    }
}

/* d and the sub-scales of least error. */
GT_INLINE void choose_xs_scales(const tile *t, const xs_plan *p, solution *best) {
    float around[LANES], d[LANES], largest[LANES];
    for (int o = 0; o < LANES; o += VW) {
        vf v = natural_scale(t, o);
        found first = search_gains(t->x + o, t->w + o, v, &p->first, (found){{0}, v});
        vf_store(around + o, first.s);
        vf_store(largest + o, vf_abs(first.s));
        vf_store(best->error + o, vf_set1(HOPELESS));
    }
    largest_of_eight(largest);
    for (int o = 0; o < LANES; o += VW) {
        vf power = vf_load(t->power + o), v = vf_load(largest + o), first = storable(v * (p->headroom / MOST), power);
        vf more = storable(first + LEAST_SCALE / power, power); /* for a subnormal that was rounded down */
        vf_store(d + o, vf_select(first * MOST < v * 0.99f, more, first));
    }
    descend(t, d, around, &p->refine, p->refits, best);
    memcpy(d, best->d, sizeof d);
    own_scales(best, around);
    for (int k = 0; k < p->starts; ++k) {
        float start[LANES];
        for (int o = 0; o < LANES; o += VW)
            vf_store(start + o, storable(vf_load(d + o) * (p->from_start + (float)k * p->step_start),
                                         vf_load(t->power + o)));
        descend(t, start, around, &p->around, p->settles, best);
    }
}

static void pack_xs(const float *x, float d, const float c[SUBS], uint8_t *out) {
    int high = 0;
    memset(out, 0, 8);
    for (int j = 0; j < SUBS; ++j) {
        uint8_t codes[BLOCK];
        int s = (int)c[j] + 32;
        high |= s >> 4 << 2 * j;
        out[4 + j / 2] |= (uint8_t)((s & 15) << 4 * (j % 2));
        round_block(x + j * BLOCK, d * c[j], codes);
        pack_nibbles(codes, out + 8 + 16 * j);
    }
    u16_store(out, f16_from_scale(d));
    u16_store(out + 2, (uint16_t)high);
}

static void encode_xs(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    const xs_plan *p = &XS[opt->effort];
    for (int64_t i = 0; i < n; i += BATCH) {
        tile t;
        solution s;
        fill_from_row(&t, x + i, w ? w + i : NULL, n - i, opt->objective, 1);
        choose_xs_scales(&t, p, &s);
        for (int h = 0; h < 2 && i + h * SUPER < n; ++h, out += 136)
            pack_xs(x + i + h * SUPER, s.d[h * SUBS] * t.power[h * SUBS], s.c + h * SUBS, out);
    }
}

/* ---- decoding ---- */

static const float VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

GT_INLINE void decode_block(const uint8_t *in, float s, float *y) {
    float levels[16];
    for (int k = 0; k < 16; ++k) levels[k] = s * VALUES[k];
    for (int i = 0; i < 16; ++i) {
        y[i] = levels[in[i] & 15];
        y[i + 16] = levels[in[i] >> 4];
    }
}

static void decode_nl(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += BLOCK, in += 18, y += BLOCK) decode_block(in + 2, f16_load(in), y);
}

static void decode_xs(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += SUPER, in += 136) {
        const float d = f16_load(in);
        const int high = u16_load(in + 2);
        for (int j = 0; j < SUBS; ++j, y += BLOCK) {
            int c = ((in[4 + j / 2] >> 4 * (j % 2) & 15) | (high >> 2 * j & 3) << 4) - 32;
            decode_block(in + 8 + 16 * j, d * (float)c, y);
        }
    }
}

const gt_codec GT_FN(gt_iq4)[] = {
    {20, BLOCK, 18, 0, encode_nl, decode_nl}, {23, SUPER, 136, 0, encode_xs, decode_xs}, {0}};
