/* Searches of Q4_1 and Q5_1 with importances: blocks of 32 weights with a binary16 scale and a binary16 minimum.
 *
 * x = d * l + m, l in 0..15 (Q4_1, 20 bytes: d, m, then 16 bytes with elements 0..15 in the low and 16..31 in the high
 * nibbles) or in 0..31 (Q5_1, 24 bytes: d, m, a word with the fifth bits, nibbles). Without importances these types are a
 * closed form, in legacy.c.
 *
 * The reference searches along one line of candidates with m <= 0, rounds d and m to binary16 and leaves the codes as
 * they were. Here both ends of the range move (affine_search.h), m is free, and d and m are rounded before the codes are
 * chosen for them, refitted and rounded again; only errors of stored values are compared. Against the reference's error,
 * mean over three kinds of rows: Q4_1 0.932, Q5_1 0.911, in a ninth of its time; fast 0.941 and 0.923 in a twentieth. The
 * gain goes on slowly with the number of candidates (best: 0.929, 0.910): levels that happen to fall well.
 *
 * choose_scales and round_codes are separate, so that an encoder may change the columns in between.
 */
#include "affine_search.h"

#define BLOCK 32
#define BATCH (BLOCK * LANES)

/* What is stored, at real size. */
typedef struct {
    float d[LANES], m[LANES];
} __attribute__((aligned(64))) solution;

/* The reference's weights are importance times sqrt(mean + x^2) with the mean over the row: both in units of the row, a
 * power of two. */
typedef struct {
    float mean, inverse;
} row_scale;

static row_scale scale_of_row(const float *x, int64_t n) {
    vf top = {0};
    float sums[LANES];
    for (int64_t i = 0; i < n; i += VW) top = vf_max(top, vf_abs(vf_load(x + i)));
    row_scale r;
    r.inverse = inverse_power(power_of_two_of(vf_set1(vf_max_of(top))))[0];
    EACH_LANE {
        vf a = {0};
        for (int64_t i = 0; i < n; i += LANES) {
            vf v = vf_load(x + i + o) * r.inverse;
            a += v * v;
        }
        vf_store(sums + o, a);
    }
    r.mean = sum16(sums) / (float)n;
    return r;
}

static void fill_tile(tile *t, const float *x, const float *w, shape f, int objective, row_scale row) {
    load_tile(t, x, objective == GT_MSE ? NULL : w, f);
    if (objective == GT_REF) {
        float mean[LANES], scale[LANES];
        EACH_LANE {
            vf_store(mean + o, vf_set1(row.mean));
            vf_store(scale + o, vf_load(t->power + o) * row.inverse);
        }
        weigh_by_root(t, mean, scale, f);
    }
    center_tile(t, f);
}

/* The nearest binary16 value of either sign. */
GT_INLINE vf round_signed(vf v) {
    vf a = vf_abs(v), r = vf_select(a <= vf_set1(0.5f * LEAST_SCALE), vf_set1(0.0f), round_to_f16(a));
    return (vf)((vi)r | ((vi)v & INT32_MIN));
}

GT_INLINE void choose_scales(const tile *t, shape f, const plan *p, solution *out) {
    fits real;
    search_fits(t, f, p, &real);
    EACH_LANE {
        vf power = vf_load(t->power + o), inverse = inverse_power(power), mean = vf_load(t->mean + o);
        vf s = vf_load(real.s + o), c = vf_load(real.c + o), d = {0}, m = {0};
        vf best = vf_load(t->energy + o) + (mean * mean) * vf_load(t->weight + o); /* of d = m = 0 */
        for (int r = 0; r < p->rounds; ++r) {
            vf stored_d = round_to_f16(s * power), stored_m = round_signed((mean - c) * power);
            s = stored_d * inverse;
            c = mean - stored_m * inverse;
            vf a = inverse_of(s), b = c * a, error, l1, l2, yl;
            errors_of(t, o, f, &a, &b, 1, &error);
            error = vf_select(s == vf_set1(0.0f), vf_load(t->energy + o) + (c * c) * vf_load(t->weight + o), error * (s * s));
            vi wins = error < best;
            best = vf_select(wins, error, best);
            d = vf_select(wins, stored_d, d);
            m = vf_select(wins, stored_m, m);
            if (r + 1 == p->rounds) break;
            moments_of(t, o, f, &a, &b, 1, &l1, &l2, &yl);
            fit next = fit_of(t, o, f, l1, l2, yl);
            s = next.s;
            c = next.c;
        }
        vf_store(out->d + o, d);
        vf_store(out->m + o, m);
    }
}

/* Codes of one block. */
GT_INLINE void round_codes(const float *x, float d, float m, int levels, uint8_t codes[BLOCK]) {
    vi q[GT_NV(BLOCK)];
    float inverse = d != 0.0f ? 1.0f / d : 0.0f;
    for (int k = 0; k < GT_NV(BLOCK); ++k)
        q[k] = vi_trunc(code_of((vf_load(x + k * VW) - m) * inverse, vf_set1((float)levels)));
    vi_store_bytes32(codes, q);
}

static void pack(const uint8_t codes[BLOCK], float d, float m, int five, uint8_t *out) {
    u16_store(out, f16_from_scale(d));
    u16_store(out + 2, f16_from_scale(m));
    out += 4;
    if (five) {
        uint32_t bits = 0;
        for (int i = 0; i < BLOCK; ++i) bits |= (uint32_t)(codes[i] >> 4) << i;
        u32_store(out, bits);
        out += 4;
    }
    for (int i = 0; i < 16; ++i) out[i] = (uint8_t)((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

GT_INLINE void encode_row(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt, const plan *plans,
                          int levels, int bytes) {
    const shape f = {BLOCK, 1, levels, 1};
    row_scale row = {0.0f, 0.0f};
    if (opt->objective == GT_REF) row = scale_of_row(x, n);
    for (int64_t i = 0; i < n; i += BATCH) {
        const float *xs = x + i, *ws = w + i;
        float padded_x[BATCH], padded_w[BATCH];
        int blocks = (int)(n - i < BATCH ? n - i : BATCH) / BLOCK;
        if (blocks < LANES) {
            for (int k = 0; k < BATCH; ++k) {
                padded_x[k] = k < blocks * BLOCK ? xs[k] : 0.0f;
                padded_w[k] = k < blocks * BLOCK ? ws[k] : 1.0f;
            }
            xs = padded_x;
            ws = padded_w;
        }
        tile t;
        solution best;
        fill_tile(&t, xs, ws, f, opt->objective, row);
        choose_scales(&t, f, &plans[opt->effort], &best);
        for (int k = 0; k < blocks; ++k, out += bytes) {
            uint8_t codes[BLOCK];
            round_codes(xs + k * BLOCK, best.d[k], best.m[k], levels, codes);
            pack(codes, best.d[k], best.m[k], levels == 31, out);
        }
    }
}

void GT_FN(gt_search_q4_1)(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(x, w, n, out, opt, Q4_1, 15, 20);
}

void GT_FN(gt_search_q5_1)(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(x, w, n, out, opt, Q5_1, 31, 24);
}
