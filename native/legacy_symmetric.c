/* Searches of Q4_0 and Q5_0 with importances, and of Q6_0: blocks of 32 weights with one binary16 scale.
 *
 * x = d * l, l in -8..7 (Q4_0, 18 bytes: d, then 16 bytes with the codes l + 8 of elements 0..15 in the low and
 * 16..31 in the high nibbles), in -16..15 (Q5_0, 22 bytes: d, a word with the fifth bits, nibbles) or in -32..31 (Q6_0,
 * 26 bytes: d, eight bytes with the bit pairs of elements j, j + 16, j + 8 and j + 24, nibbles). Without
 * importances Q4_0 and Q5_0 are a closed form, in legacy.c.
 *
 * The reference tries nineteen scales within a ninth (Q4_0) of the one that puts the largest weight on -N, keeps the
 * best after least squares, rounds it to binary16 and leaves the codes as they were. Here the scales reach from where
 * an unimportant large weight is clipped to where a few important ones happen to fall on levels; in Q4_0 both signs are
 * tried, because the extra level may belong to the other side; then the scale is refitted, rounded to binary16 and the
 * codes chosen again, a few times, and only errors of stored values are compared. Against the reference's error, same
 * weights, mean over three kinds of rows: Q4_0 0.946, Q5_0 0.942, in less than a third of its time; fast 0.951 and
 * 0.952 in an eighth. More candidates gain next to nothing (best: 0.945, 0.941). Q6_0: 0.954, without importances
 * 0.935; fast 0.972 and 0.944; best 0.953 and 0.9345.
 *
 * choose_scales and round_codes are separate, so that an encoder may change the columns in between.
 */
#include "symmetric_search.h"

#define BLOCK 32
#define BATCH (BLOCK * LANES)

/* How far a search goes. The numbers were found by trying, on rows that are in no test. */
typedef struct {
    spread first;  /* around the scale that puts the largest weight on -N */
    spread second; /* around the best of these */
    int refits;    /* then by least squares, rounded */
} plan;

/* By effort. */
static const plan Q4_0[3] = {{SPREAD(0.65f, 1.27f, 12, 0), NO_SPREAD, 2},
                             {SPREAD(0.6f, 1.37f, 20, 1), SPREAD(0.95f, 1.05f, 8, 0), 3},
                             {SPREAD(0.4f, 1.8f, 256, 1), SPREAD(0.98f, 1.02f, 16, 1), 8}};
static const plan Q5_0[3] = {{SPREAD(0.9f, 1.23f, 12, 0), NO_SPREAD, 0},
                             {SPREAD(0.7f, 1.46f, 36, 0), SPREAD(0.93f, 1.07f, 8, 1), 3},
                             {SPREAD(0.4f, 2.0f, 512, 1), SPREAD(0.98f, 1.02f, 32, 1), 8}};
static const plan Q6_0[3] = {{SPREAD(0.95f, 1.13f, 12, 0), NO_SPREAD, 0},
                             {SPREAD(0.8f, 1.4f, 48, 0), SPREAD(0.97f, 1.03f, 8, 1), 2},
                             {SPREAD(0.5f, 1.8f, 512, 1), SPREAD(0.99f, 1.01f, 32, 1), 8}};

/* Sixteen blocks on their sides: row i holds element i of each, every block scaled by its own power of two. */
typedef struct {
    float x[BATCH], w[BATCH];
    float power[LANES];
    float largest[LANES]; /* max |x|, with the sign of the scale that puts this element on -N */
    float d[LANES];       /* what the search found: real scales, signed */
} __attribute__((aligned(64))) tile;

/* Mean of x^2 over the row, of values times `inverse`. */
static float row_mean(const float *x, int64_t n, float inverse) {
    float sums[LANES] = {0};
    for (int o = 0; o < LANES; o += VW) {
        vf a = {0};
        for (int64_t i = 0; i < n; i += LANES) {
            vf v = vf_load(x + i + o) * inverse;
            a += v * v;
        }
        vf_store(sums + o, a);
    }
    return sum16(sums) / (float)n;
}

static float largest_of_row(const float *x, int64_t n) {
    vf m = {0};
    for (int64_t i = 0; i < n; i += VW) m = vf_max(m, vf_abs(vf_load(x + i)));
    return vf_max_of(m);
}

/* The reference's weights: importance times the root of the row's mean square + x^2, in units of the row; without an
 * importance x^2 (Q6_0). */
typedef struct {
    float mean, inverse;
} row_scale;

static row_scale scale_of_row(const float *x, int64_t n, float largest) {
    row_scale r;
    if (largest > 0x1p126f) largest = 0x1p126f; /* the inverse of 2^127 is no normal number */
    r.inverse = inverse_power(power_of_two_of(vf_set1(largest)))[0];
    r.mean = row_mean(x, n, r.inverse);
    return r;
}

static void fill_tile(tile *t, const float *x, const float *w, int objective, row_scale row, int cut) {
    transpose(x, BLOCK, BLOCK, t->x);
    if (cut) cut_far(t->x, BATCH);
    if (objective == GT_MSE || !w)
        for (int i = 0; i < BATCH; i += VW) vf_store(t->w + i, vf_set1(1.0f));
    else transpose(w, BLOCK, BLOCK, t->w);
    if (objective == GT_REF)
        for (int i = 0; i < BATCH; i += VW) {
            vf v = vf_load(t->x + i) * row.inverse;
            vf weight = w ? vf_load(t->w + i) * vf_sqrt(row.mean + v * v) : v * v;
            vf_store(t->w + i, vf_max(weight, vf_set1(TINY_WEIGHT)));
        }
    for (int o = 0; o < LANES; o += VW) {
        vf high = {0}, low = {0};
        for (int i = 0; i < BLOCK; ++i) {
            vf v = vf_load(t->x + i * LANES + o);
            high = vf_max(high, v);
            low = vf_min(low, v);
        }
        vf largest = vf_max(high, -low), sign = sign_of(-low - high);
        vf power = power_of_two_of(largest), inverse = inverse_power(power);
        for (int i = 0; i < BLOCK; ++i) vf_store(t->x + i * LANES + o, vf_load(t->x + i * LANES + o) * inverse);
        vf_store(t->power + o, power);
        vf_store(t->largest + o, vf_max(largest * inverse, vf_set1(LEAST_SCALE)) * sign);
    }
}

/* The scale of each block: refitted and rounded to what can be stored, and only that compared. */
GT_INLINE void choose_scales(tile *t, const plan *p, int levels) {
    for (int o = 0; o < LANES; o += VW) {
        const float *x = t->x + o, *w = t->w + o;
        vf power = vf_load(t->power + o), v = vf_load(t->largest + o) * (1.0f / (float)levels), xl, ll;
        found best = {vf_set1(HOPELESS), {0}};
        best = search_spread(x, w, BLOCK, v, &p->first, levels, best);
        best = search_spread(x, w, BLOCK, best.s, &p->second, levels, best);
        moments_of(x, w, BLOCK, vf_set1(1.0f) / best.s, levels, &xl, &ll);
        vf fit = xl * inverse_of(ll);
        best = (found){energy_of(x, w, BLOCK), {0}};
        for (int r = 0;; ++r) {
            vf s = round_to_f16(vf_abs(fit) * power) * sign_of(fit) * (1.0f / power), inverse = vf_set1(1.0f) / s;
            vf e = error_of(x, w, BLOCK, inverse, levels) * (s * s);
            keep(&best, e < best.score, e, s);
            if (r == p->refits) break;
            moments_of(x, w, BLOCK, inverse, levels, &xl, &ll);
            fit = xl * inverse_of(ll);
        }
        vf_store(t->d + o, best.s * power);
    }
}

/* Codes plus N of one block, in 0 .. 2N-1. */
GT_INLINE void round_codes(const float *x, float d, int levels, uint8_t codes[BLOCK]) {
    vi q[GT_NV(BLOCK)];
    float inverse = d != 0.0f ? 1.0f / d : 0.0f;
    for (int k = 0; k < GT_NV(BLOCK); ++k)
        q[k] = code_bits(vf_load(x + k * VW) * inverse, -levels, levels - 1) - (MAGIC_BITS - levels);
    vi_store_bytes32(codes, q);
}

static void pack(const uint8_t codes[BLOCK], float d, int levels, uint8_t *out) {
    u16_store(out, f16_from_scale(d));
    out += 2;
    if (levels == 32) {
        for (int i = 0; i < 8; ++i) {
            const uint8_t *q = codes + i;
            out[i] = (uint8_t)(q[0] >> 4 | q[16] >> 4 << 2 | q[8] >> 4 << 4 | q[24] >> 4 << 6);
        }
        out += 8;
    } else if (levels == 16) {
        uint32_t bits = 0;
        for (int i = 0; i < BLOCK; ++i) bits |= (uint32_t)(codes[i] >> 4) << i;
        u32_store(out, bits);
        out += 4;
    }
    for (int i = 0; i < 16; ++i) out[i] = (uint8_t)((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

GT_INLINE void encode_row(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt,
                          const plan *plans, int levels, int bytes) {
    const plan *p = &plans[opt->effort];
    row_scale row = {0.0f, 0.0f};
    float largest = largest_of_row(x, n);
    if (opt->objective == GT_REF) row = scale_of_row(x, n, largest);
    for (int64_t i = 0; i < n; i += BATCH) {
        const float *xs = x + i, *ws = w ? w + i : NULL;
        int blocks = n - i < BATCH ? (int)((n - i) / BLOCK) : LANES;
        float padded_x[BATCH], padded_w[BATCH];
        if (blocks < LANES) { /* the last blocks of the row: the other lanes hold zeros */
            memset(padded_x, 0, sizeof padded_x);
            memset(padded_w, 0, sizeof padded_w);
            memcpy(padded_x, xs, (size_t)blocks * BLOCK * sizeof *x);
            if (w) memcpy(padded_w, ws, (size_t)blocks * BLOCK * sizeof *w);
            xs = padded_x;
            ws = w ? padded_w : NULL;
        }
        tile t;
        fill_tile(&t, xs, ws, opt->objective, row, largest > FAR);
        choose_scales(&t, p, levels);
        for (int j = 0; j < blocks; ++j, out += bytes) {
            uint8_t codes[BLOCK];
            round_codes(xs + j * BLOCK, t.d[j], levels, codes);
            pack(codes, t.d[j], levels, out);
        }
    }
}

void GT_FN(gt_search_q4_0)(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(x, w, n, out, opt, Q4_0, 8, 18);
}

void GT_FN(gt_search_q5_0)(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(x, w, n, out, opt, Q5_0, 16, 22);
}

void GT_FN(gt_search_q6_0)(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(x, w, n, out, opt, Q6_0, 32, 26);
}
