/* Encoders of Q3_K and Q6_K: super-blocks of 256 weights with one binary16 scale d and sixteen integer sub-scales c.
 *
 * x = (d * c_j) * l, sixteen weights to a sub-block j. Q3_K: l in -4..3, c in -32..31, 110 bytes: 32 of high bits (one
 * per element, the bit i/32 of byte i%32), 64 of low bit pairs, 12 of scales (16 low nibbles, then 16 high pairs, of
 * c + 32), d. Q6_K: l in -32..31, c in -128..127, 210 bytes: 128 of low nibbles, 64 of high bit pairs, 16 scales, d.
 *
 * The reference looks for a real scale per sub-block first, nineteen candidates with the largest element always on -N,
 * then rounds these scales to d * c, then rounds the weights, and never looks back. Here the first search only finds
 * out where to look; after it nothing is tried but what can be stored. For a given d that is a window of integers c in
 * each sub-block around its real scale, codes rounded for exactly d * c, and the exact error. Then d is refitted by
 * weighted least squares, rounded to binary16, and the windows are searched again around the sub-scales' own
 * least-squares values; then the same for a few d a little smaller and larger. Candidates reach well above the scale
 * that the largest weight asks for, because a lucky alignment of the few weights that matter is worth more than the
 * finest steps. Both signs of c are tried in Q3_K, where an eighth level is worth having on the right side; among 64 it
 * is not, so Q6_K puts the extra level on the side of the largest weight.
 *
 * The error against the reference's, same weights, mean over three kinds of rows: Q3_K 0.95 with an importance, 0.91
 * without; Q6_K 0.86 and 0.87. With an importance it takes less than a third of the reference's time (AVX-512; AVX2
 * nearly the same), because blocks are in the lanes; fast (0.97 and 0.91, 0.89 and 0.89) an eighth, best (0.95 and
 * 0.91, 0.84 and 0.86) six to ten times it. Without an importance the reference's Q3_K is quicker: here two thirds.
 *
 * d is rounded before c is chosen, so small weights do not collapse: where d is subnormal, few values are left for it,
 * but c makes up for that. At a standard deviation of 1e-4 the reference's Q6_K has sixty times this error.
 *
 * choose_scales and round_codes are separate, so that an encoder may change the columns in between.
 */
#include "symmetric_search.h"

#define SUPER 256
#define SUB 16

/* Candidates for a sub-scale near a real v: round(|v|) + low + k, k < count, with the sign of v or with both. */
typedef struct {
    int low, count, both;
} window;

/* How far a search goes. The numbers were found by trying, on rows that are in no test. */
typedef struct {
    spread first;   /* around the scale that puts a sub-block's largest weight on -N */
    float headroom; /* the first d is this much more than what the largest of the scales found needs */
    window refine;  /* around the sub-blocks' least-squares scales, for the first and every refitted d */
    int refits;
    window around;  /* the same for further starts */
    int settles;    /* refits after each of them */
    int starts;     /* the d found so far times from_start + k * step_start, k < starts */
    float from_start, step_start;
} plan;

/* By effort; for even weights, where the sign that suits the largest weight suits the sub-block, apart. */
static const plan Q3_K[3] = {
    {SPREAD(0.79f, 1.37f, 4, 1), 1.0f, {-1, 2, 1}, 1, {0, 2, 1}, 0, 1, 1.03f, 0.0f},
    {SPREAD(0.53f, 1.38f, 12, 1), 1.0f, {-2, 4, 1}, 5, {-1, 2, 1}, 0, 5, 0.94f, 0.03f},
    {SPREAD(0.4f, 1.6f, 64, 1), 1.0f, {-5, 10, 1}, 5, {-8, 16, 1}, 2, 25, 0.82f, 0.015f}};
static const plan Q3_K_EVEN[3] = {
    {SPREAD(0.76f, 1.36f, 8, 0), 1.0f, {-1, 4, 0}, 1, {-1, 2, 0}, 1, 1, 1.02f, 0.0f},
    {SPREAD(0.53f, 1.38f, 12, 0), 1.0f, {-2, 4, 0}, 3, {-1, 2, 1}, 0, 5, 0.94f, 0.03f},
    {SPREAD(0.4f, 1.6f, 64, 1), 1.0f, {-5, 10, 1}, 5, {-8, 16, 1}, 2, 25, 0.82f, 0.015f}};
static const plan Q6_K[3] = {
    {SPREAD(0.92f, 1.18f, 8, 0), 1.0f, {-1, 4, 0}, 0, {0, 0, 0}, 0, 0, 0.0f, 0.0f},
    {SPREAD(0.95f, 1.35f, 24, 0), 1.03f, {-2, 8, 0}, 0, {-7, 12, 0}, 0, 3, 0.98f, 0.02f},
    {SPREAD(0.65f, 1.6f, 160, 0), 1.03f, {-10, 20, 0}, 2, {-24, 48, 0}, 1, 33, 0.84f, 0.01f}};

/* A super-block on its side: row i holds element i of the sixteen sub-blocks. */
typedef struct {
    float x[SUB * LANES], w[SUB * LANES];
    float energy[LANES];  /* sum w x^2 */
    float largest[LANES]; /* max |x|, with the sign of the scale that puts this element on -N */
    float power;          /* x here times this is x as given */
} __attribute__((aligned(64))) tile;

/* What a search found for one d. */
typedef struct {
    float c[LANES], xl[LANES], ll[LANES];
    float d, error;
} __attribute__((aligned(64))) solution;

/* ---- the tile ---- */

static float largest_of(const float v[LANES]) {
    vf m = {0};
    for (int o = 0; o < LANES; o += VW) m = vf_max(m, vf_abs(vf_load(v + o)));
    return vf_max_of(m);
}

/* The reference's weights: importance times the root of 2 mean(x^2) + x^2 (Q3_K) or alone (Q6_K); x^2 without one. */
static void weigh_as_reference(tile *t, int has_w, int with_root) {
    if (has_w && !with_root) return;
    if (!has_w) {
        for (int i = 0; i < SUB * LANES; i += VW) {
            vf x = vf_load(t->x + i);
            vf_store(t->w + i, vf_max(x * x, vf_set1(TINY_WEIGHT)));
        }
        return;
    }
    float sums[LANES] = {0};
    for (int o = 0; o < LANES; o += VW) {
        vf a = {0};
        for (int i = 0; i < SUB; ++i) {
            vf x = vf_load(t->x + i * LANES + o);
            a += x * x;
        }
        vf_store(sums + o, a);
    }
    vf twice_mean = vf_set1(sum16(sums) * (2.0f / SUPER));
    for (int i = 0; i < SUB * LANES; i += VW) {
        vf x = vf_load(t->x + i);
        vf_store(t->w + i, vf_load(t->w + i) * vf_sqrt(twice_mean + x * x));
    }
}

static float measure(tile *t) {
    for (int o = 0; o < LANES; o += VW) {
        vf high = {0}, low = {0};
        for (int i = 0; i < SUB; ++i) {
            vf v = vf_load(t->x + i * LANES + o);
            high = vf_max(high, v);
            low = vf_min(low, v);
        }
        vf_store(t->largest + o, vf_select(high > -low, -high, -low));
    }
    return largest_of(t->largest);
}

/* False if the block is zero or so small that no scale can express it. */
static int fill_tile(tile *t, const float *x, const float *w, int objective, int with_root) {
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
    if (objective == GT_REF) weigh_as_reference(t, w != NULL, with_root);
    for (int o = 0; o < LANES; o += VW) {
        vf_store(t->largest + o, vf_load(t->largest + o) * inverse);
        vf_store(t->energy + o, energy_of(t->x + o, t->w + o, SUB));
    }
    return 1;
}

/* ---- choosing the scales ---- */

/* The storable d nearest to a scale of the tile. */
static float storable(float d, const tile *t) {
    return round_to_f16(vf_set1(d * t->power))[0] * (1.0f / t->power);
}

/* The least-squares scales of the sub-blocks after a search among real ones. */
GT_INLINE void first_scales(const tile *t, const spread *range, int levels, float scales[LANES]) {
    for (int o = 0; o < LANES; o += VW) {
        const float *x = t->x + o, *w = t->w + o;
        vf v = vf_load(t->largest + o) * (1.0f / (float)levels), xl, ll;
        v = vf_select(v == vf_set1(0.0f), vf_set1(LEAST_SCALE), v);
        found best = {vf_set1(HOPELESS), {0}};
        best = search_spread(x, w, SUB, v, range, levels, best);
        moments_of(x, w, SUB, vf_set1(1.0f) / best.s, levels, &xl, &ll);
        vf_store(scales + o, xl * inverse_of(ll));
    }
}

/* Candidate k of a window, in 1 .. limit. */
GT_INLINE vf candidate(const window *win, int k, vf v, vf limit) {
    if (k >= win->count) k = win->count - 1;
    return vf_min(vf_max(vf_round(v) + (float)(win->low + k), vf_set1(1.0f)), limit);
}

GT_INLINE found search_one_sign(const float *x, const float *w, vf d, vf v, vf sign, const window *win, int levels,
                                int top, found best) {
    for (int k = 0; k < win->count; k += SINGLES) {
        vf c[SINGLES], s[SINGLES], inverse[SINGLES], e[SINGLES];
        EACH(SINGLES) {
            c[u] = candidate(win, k + u, v, vf_set1((float)top)) * sign;
            s[u] = d * c[u];
            inverse[u] = vf_set1(1.0f) / s[u];
        }
        errors_of(x, w, SUB, inverse, levels, e);
        EACH(SINGLES) {
            e[u] *= s[u] * s[u];
            keep(&best, e[u] < best.score, e[u], c[u]);
        }
    }
    return best;
}

GT_INLINE found search_both_signs(const float *x, const float *w, vf d, vf v, const window *win, int levels, int top,
                                  found best) {
    for (int k = 0; k < win->count; k += PAIRS) {
        vf c[PAIRS], s[PAIRS], inverse[PAIRS], e[PAIRS], f[PAIRS];
        EACH(PAIRS) {
            c[u] = candidate(win, k + u, v, vf_set1((float)(top + 1)));
            s[u] = d * c[u];
            inverse[u] = vf_set1(1.0f) / s[u];
        }
        errors_of_both(x, w, SUB, inverse, levels, e, f);
        EACH(PAIRS) {
            e[u] *= s[u] * s[u];
            f[u] *= s[u] * s[u];
            keep(&best, (e[u] < best.score) & (c[u] <= vf_set1((float)top)), e[u], c[u]);
            keep(&best, f[u] < best.score, f[u], -c[u]);
        }
    }
    return best;
}

/* For one d the best sub-scale of every sub-block in a window around the real scales `around`. */
GT_INLINE void search(const tile *t, float d_value, const float around[LANES], const window *win, int levels, int top,
                      solution *out) {
    float errors[LANES];
    vf d = vf_set1(d_value);
    for (int o = 0; o < LANES; o += VW) {
        const float *x = t->x + o, *w = t->w + o;
        vf center = vf_load(around + o), v = vf_abs(center) / d, xl, ll;
        found best = {vf_load(t->energy + o), {0}};
        if (win->both) best = search_both_signs(x, w, d, v, win, levels, top, best);
        else best = search_one_sign(x, w, d, v, sign_of(center), win, levels, top, best);
        moments_of(x, w, SUB, inverse_of(d * best.s), levels, &xl, &ll);
        vf_store(errors + o, best.score);
        vf_store(out->c + o, best.s);
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

/* The least-squares scales of the sub-blocks for the codes of a solution. */
static void own_scales(const solution *s, float scales[LANES]) {
    for (int o = 0; o < LANES; o += VW) vf_store(scales + o, vf_load(s->xl + o) * inverse_of(vf_load(s->ll + o)));
}

/* Searches at d, then at the least-squares d of what was found, and so on; the best of it all. */
GT_INLINE void descend(const tile *t, float d, const float around[LANES], const window *win, int refits, int levels,
                       int top, solution *best) {
    solution now;
    search(t, d, around, win, levels, top, &now);
    if (now.error < best->error) *best = now;
    for (int r = 0; r < refits; ++r) {
        float own[LANES];
        d = refitted(&now, t);
        if (d == now.d || d == 0.0f) break;
        own_scales(&now, own);
        search(t, d, own, win, levels, top, &now);
        if (now.error < best->error) *best = now;
    }
}

/* d and the sub-scales of least error. */
GT_INLINE void choose_scales(const tile *t, const plan *p, int levels, int top, solution *best) {
    float around[LANES];
    first_scales(t, &p->first, levels, around);
    float largest = largest_of(around), d = storable(largest * (p->headroom / (float)top), t);
    if (d * (float)top < largest * 0.99f) /* a subnormal that was rounded down */
        d = storable(d + LEAST_SCALE / t->power, t);
    best->error = HOPELESS;
    descend(t, d, around, &p->refine, p->refits, levels, top, best);
    d = best->d;
    own_scales(best, around);
    for (int k = 0; k < p->starts; ++k) {
        float start = storable(d * (p->from_start + (float)k * p->step_start), t);
        if (start != d) descend(t, start, around, &p->around, p->settles, levels, top, best);
    }
}

/* ---- rounding with given scales, and the bytes ---- */

/* Codes plus N of one super-block. */
GT_INLINE void round_codes(const float *x, float d, const float c[LANES], int levels, uint8_t codes[SUPER]) {
    for (int j = 0; j < SUPER / 32; ++j) {
        vi q[GT_NV(32)];
        float inverse[2];
        for (int h = 0; h < 2; ++h) {
            float s = d * c[2 * j + h];
            inverse[h] = s != 0.0f ? 1.0f / s : 0.0f;
        }
        for (int k = 0; k < GT_NV(32); ++k)
            q[k] = code_bits(vf_load(x + 32 * j + k * VW) * inverse[k * VW / 16], -levels, levels - 1) -
                   (MAGIC_BITS - levels);
        vi_store_bytes32(codes + 32 * j, q);
    }
}

static void pack_q3_k(const uint8_t *codes, const float c[LANES], float d, uint8_t *out) {
    for (int i = 0; i < 32; ++i) {
        int high = 0;
        for (int k = 0; k < 8; ++k) high |= (codes[32 * k + i] >> 2) << k;
        out[i] = (uint8_t)high;
    }
    for (int h = 0; h < 2; ++h)
        for (int i = 0; i < 32; ++i) {
            const uint8_t *q = codes + 128 * h + i;
            out[32 + 32 * h + i] =
                (uint8_t)((q[0] & 3) | (q[32] & 3) << 2 | (q[64] & 3) << 4 | (q[96] & 3) << 6);
        }
    int s[LANES];
    for (int j = 0; j < LANES; ++j) s[j] = (int)c[j] + 32;
    for (int j = 0; j < 8; ++j) out[96 + j] = (uint8_t)((s[j] & 15) | (s[j + 8] & 15) << 4);
    for (int j = 0; j < 4; ++j)
        out[104 + j] = (uint8_t)(s[j] >> 4 | s[j + 4] >> 4 << 2 | s[j + 8] >> 4 << 4 | s[j + 12] >> 4 << 6);
    u16_store(out + 108, f16_from_scale(d));
}

static void pack_q6_k(const uint8_t *codes, const float c[LANES], float d, uint8_t *out) {
    for (int h = 0; h < 2; ++h)
        for (int i = 0; i < 32; ++i) {
            const uint8_t *q = codes + 128 * h + i;
            out[64 * h + i] = (uint8_t)((q[0] & 15) | (q[64] & 15) << 4);
            out[64 * h + 32 + i] = (uint8_t)((q[32] & 15) | (q[96] & 15) << 4);
            out[128 + 32 * h + i] = (uint8_t)(q[0] >> 4 | q[32] >> 4 << 2 | q[64] >> 4 << 4 | q[96] >> 4 << 6);
        }
    for (int j = 0; j < LANES; ++j) out[192 + j] = (uint8_t)(int8_t)(int)c[j];
    u16_store(out + 208, f16_from_scale(d));
}

static int even_weights(const float *w, const gt_options *opt) {
    return opt->objective == GT_MSE || (!w && opt->objective == GT_IMATRIX);
}

#define ENCODER(type, PLANS, EVEN_PLANS, n_levels, n_top, with_root, n_bytes)                                       \
    static void encode_##type(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {     \
        const plan *p = &(even_weights(w, opt) ? EVEN_PLANS : PLANS)[opt->effort];                                  \
        for (int64_t i = 0; i < n; i += SUPER, out += n_bytes) {                                                    \
            uint8_t codes[SUPER];                                                                                   \
            tile t;                                                                                                 \
            solution s = {{0}, {0}, {0}, 0.0f, 0.0f};                                                               \
            if (fill_tile(&t, x + i, w ? w + i : NULL, opt->objective, with_root))                                  \
                choose_scales(&t, p, n_levels, n_top, &s);                                                          \
            else t.power = 1.0f;                                                                                    \
            round_codes(x + i, s.d * t.power, s.c, n_levels, codes);                                                \
            pack_##type(codes, s.c, s.d * t.power, out);                                                            \
        }                                                                                                           \
    }
ENCODER(q3_k, Q3_K, Q3_K_EVEN, 4, 31, 1, 110)
ENCODER(q6_k, Q6_K, Q6_K, 32, 127, 0, 210)

const gt_codec GT_FN(gt_kquants_symmetric)[] = {
    {11, SUPER, 110, 0, encode_q3_k, NULL}, {14, SUPER, 210, 0, encode_q6_k, NULL}, {0}};
