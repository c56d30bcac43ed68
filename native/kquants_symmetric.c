/* Encoders of Q3_K and Q6_K: super-blocks of 256 weights with one binary16 scale d and sixteen integer sub-scales c.
 *
 * x = (d * c_j) * l, sixteen weights to a sub-block j. Q3_K: l in -4..3, c in -32..31, 110 bytes: 32 of high bits (one
 * per element, the bit i/32 of byte i%32), 64 of low bit pairs, 12 of scales (16 low nibbles, then 16 high pairs, of
 * c + 32), d. Q6_K: l in -32..31, c in -128..127, 210 bytes: 128 of low nibbles, 64 of high bit pairs, 16 scales, d.
 *
 * The reference looks for a real scale per sub-block first, nineteen candidates with the largest element always on -N,
 * then rounds these scales to d * c, then rounds the weights, and never looks back. Here nothing but what can be stored
 * is ever tried: for a given d, a window of integers c in each sub-block, codes rounded for exactly d * c, and the exact
 * error. Then d is refitted by weighted least squares, rounded to binary16, and the windows are searched again around
 * the sub-scales' own least-squares values; then the same for a few d a little smaller and larger. Both signs of c are
 * tried in Q3_K, where the eighth level is worth having on the right side; among 64 levels it is not, so Q6_K puts the
 * extra level on the side of the largest weight. Against the reference's error (mean over three kinds of rows): Q3_K 0.96,
 * Q6_K 0.90.
 *
 * d is rounded before c is chosen, so small weights do not collapse: where d is subnormal, few values are left for it,
 * but c makes up for that.
 *
 * choose_scales and round_codes are separate, so that an encoder may change the columns in between.
 */
#include "symmetric_search.h"

#define SUPER 256
#define SUB 16

/* A window of sub-scales around the real value v: round(v * (from + k * step) + (low + k * gap)), k < count. */
typedef struct {
    float from, step, low, gap;
    int count;
} window;

typedef struct {
    float headroom;       /* the first d is this much more than what the largest weight needs with the largest codes */
    window first, refine; /* around the largest weight's scale; around the least-squares scale */
    int rounds;           /* refits of d after the first search */
    window around;        /* for every further start */
    int settle;           /* refits of d after every further start */
    int n_starts;
    float starts[8];      /* further starts, as factors on the d found so far */
} plan;

typedef struct {
    int levels;     /* N */
    int top;        /* the largest sub-scale; the smallest is -top - 1 */
    int both_signs; /* try both signs of every sub-scale */
    plan plans[3];  /* by effort */
} family;

#define AROUND(reach) {1.0f, 0.0f, -(reach), 1.0f, 2 * (reach) + 1}

static const family Q3_K = {
    4, 31, 1,
    {{1.0f, {0.6f, 0.0625f, 0.0f, 0.0f, 9}, AROUND(1), 1, AROUND(0), 0, 0, {0}},
     {1.0f, {0.6f, 0.05f, 0.0f, 0.0f, 11}, AROUND(2), 3, AROUND(2), 1, 2, {0.94f, 1.06f}},
     {1.0f, {0.4f, 0.03f, 0.0f, 0.0f, 31}, AROUND(4), 4, AROUND(5), 2, 8, {0.88f, 0.91f, 0.94f, 0.97f, 1.03f, 1.06f, 1.09f, 1.12f}}}};

static const family Q6_K = {
    32, 127, 0,
    {{1.1f, {0.8f, 0.0125f, 0.0f, 0.0f, 24}, AROUND(1), 1, AROUND(0), 0, 0, {0}},
     {1.1f, {0.75f, 0.00875f, 0.0f, 0.0f, 41}, AROUND(4), 1, AROUND(4), 0, 1, {1.05f}},
     {1.1f, {0.65f, 0.005f, 0.0f, 0.0f, 110}, AROUND(10), 3, AROUND(16), 1, 8, {0.92f, 0.94f, 0.96f, 0.98f, 1.02f, 1.04f, 1.06f, 1.08f}}}};

/* A super-block on its side: row i holds element i of the sixteen sub-blocks. */
typedef struct {
    float x[SUB * LANES], w[SUB * LANES];
    float energy[LANES];  /* sum w x^2 */
    float largest[LANES]; /* max |x| */
    float sign[LANES];    /* of the sub-scale that puts the largest weight on -N */
    float power;          /* x here times this is x as given */
} __attribute__((aligned(64))) tile;

/* What a search found for one d. */
typedef struct {
    float c[LANES], xl[LANES], ll[LANES];
    float d, error;
} __attribute__((aligned(64))) solution;

/* ---- the tile ---- */

static float largest_of(const float v[LANES]) {
    float m = v[0];
    for (int j = 1; j < LANES; ++j) m = v[j] > m ? v[j] : m;
    return m;
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

/* False if the block is zero or so small that no scale can express it. */
static int fill_tile(tile *t, const float *x, const float *w, int objective, int with_root) {
    transpose(x, SUB, SUB, t->x);
    for (int o = 0; o < LANES; o += VW) {
        vf high = {0}, low = {0};
        for (int i = 0; i < SUB; ++i) {
            vf v = vf_load(t->x + i * LANES + o);
            high = vf_max(high, v);
            low = vf_min(low, v);
        }
        vf_store(t->largest + o, vf_max(high, -low));
        vf_store(t->sign + o, vf_select(high > -low, vf_set1(-1.0f), vf_set1(1.0f)));
    }
    float largest = largest_of(t->largest);
    if (largest < 0.5f * LEAST_SCALE) return 0;
    if (largest > FAR) {
        cut_far(t->x, SUPER);
        cut_far(t->largest, LANES);
        largest = FAR;
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

/* For one d the best sub-scale of every sub-block in a window around the real scales `around`. */
GT_INLINE void search(const tile *t, float d_value, const float around[LANES], const window *win, int levels, int top,
                      int both, solution *out) {
    float errors[LANES];
    vf d = vf_set1(d_value), limit = vf_set1((float)(top + both));
    for (int o = 0; o < LANES; o += VW) {
        const float *x = t->x + o, *w = t->w + o;
        vf best = vf_load(t->energy + o), c_best = {0}, v = vf_load(around + o) / d, sign = vf_load(t->sign + o), xl, ll;
        for (int k = 0; k < win->count; ++k) {
            vf c = vf_round(v * (win->from + (float)k * win->step) + (win->low + (float)k * win->gap));
            c = vf_min(vf_max(c, vf_set1(1.0f)), limit);
            if (both) {
                vf s = d * c, plus, minus;
                errors_of_both(x, w, SUB, vf_set1(1.0f) / s, levels, &plus, &minus);
                s *= s;
                plus *= s;
                minus *= s;
                vi wins = (plus < best) & (c <= vf_set1((float)top));
                best = vf_select(wins, plus, best);
                c_best = vf_select(wins, c, c_best);
                wins = minus < best;
                best = vf_select(wins, minus, best);
                c_best = vf_select(wins, -c, c_best);
            } else {
                c *= sign;
                vf s = d * c, e = error_of(x, w, SUB, vf_set1(1.0f) / s, levels) * (s * s);
                vi wins = e < best;
                best = vf_select(wins, e, best);
                c_best = vf_select(wins, c, c_best);
            }
        }
        moments_of(x, w, SUB, inverse_of(d * c_best), levels, &xl, &ll);
        vf_store(errors + o, best);
        vf_store(out->c + o, c_best);
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
    for (int o = 0; o < LANES; o += VW) vf_store(scales + o, vf_abs(vf_load(s->xl + o) * inverse_of(vf_load(s->ll + o))));
}

/* d and the sub-scales of least error. */
GT_INLINE void choose_scales(const tile *t, const plan *p, int levels, int top, int both, solution *best) {
    float around[LANES], largest = largest_of(t->largest);
    for (int j = 0; j < LANES; ++j) around[j] = t->largest[j] * (1.0f / (float)levels);
    float d = storable(largest * (p->headroom / (float)(levels * top)), t), next;
    if (d * (float)(levels * top) < largest) d = storable(d + LEAST_SCALE / t->power, t); /* a subnormal, rounded down */
    solution now;
    search(t, d, around, &p->first, levels, top, both, &now);
    *best = now;
    for (int start = -1; start < p->n_starts; ++start) {
        int rounds = start < 0 ? p->rounds : p->settle;
        const window *win = start < 0 ? &p->refine : &p->around;
        if (start >= 0) {
            if (start == 0) own_scales(best, around), d = best->d;
            next = storable(d * p->starts[start], t);
            if (next == d) continue;
            search(t, next, around, win, levels, top, both, &now);
            if (now.error < best->error) *best = now;
        }
        for (int r = 0; r < rounds; ++r) {
            float own[LANES];
            next = refitted(&now, t);
            if (next == now.d || next == 0.0f) break;
            own_scales(&now, own);
            search(t, next, own, win, levels, top, both, &now);
            if (now.error < best->error) *best = now;
        }
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
        for (int k = 0; k < GT_NV(32); ++k) {
            vi r = (vi)(vf_load(x + 32 * j + k * VW) * inverse[k * VW / 16] + GT_MAGIC);
            q[k] = vi_min(vi_max(r - MAGIC_BITS, vi_set1(-levels)), vi_set1(levels - 1)) + levels;
        }
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

#define ENCODER(type, TYPE, n_levels, n_top, both, with_root, n_bytes)                                              \
    static void encode_##type(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {     \
        const plan *p = &TYPE.plans[opt->effort];                                                                   \
        for (int64_t i = 0; i < n; i += SUPER, out += n_bytes) {                                                    \
            uint8_t codes[SUPER];                                                                                   \
            tile t;                                                                                                 \
            solution s = {{0}, {0}, {0}, 0.0f, 0.0f};                                                               \
            if (fill_tile(&t, x + i, w ? w + i : NULL, opt->objective, with_root))                                  \
                choose_scales(&t, p, n_levels, n_top, both, &s);                                                    \
            else t.power = 1.0f;                                                                                    \
            round_codes(x + i, s.d * t.power, s.c, n_levels, codes);                                                \
            pack_##type(codes, s.c, s.d * t.power, out);                                                            \
        }                                                                                                           \
    }
ENCODER(q3_k, Q3_K, 4, 31, 1, 1, 110)
ENCODER(q6_k, Q6_K, 32, 127, 0, 0, 210)

const gt_codec GT_FN(gt_kquants_symmetric)[] = {
    {11, SUPER, 110, 0, encode_q3_k, NULL}, {14, SUPER, 210, 0, encode_q6_k, NULL}, {0}};
