/* IQ4_NL and IQ4_XS: sixteen levels that are closer together near zero.
 *
 * x = s * V[q], V = -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113. IQ4_NL: blocks of 32, s = d; 18
 * bytes: d, then 16 with the codes of elements 0..15 in the low and 16..31 in the high nibbles. IQ4_XS: super-blocks of
 * 256, s = d * c_j, c in -32..31, for each 32; 136 bytes: d, a word of the high bit pairs of the eight c + 32, four
 * bytes of their low nibbles, eight times 16 bytes of nibbles.
 *
 * The reference tries fifteen scales of one sign, in steps of 1/127, and one of the other, keeps the best after least
 * squares, and rounds the codes with scales that it does not store. Here the scales reach further, from where an
 * unimportant large weight is clipped to where a few important ones happen to fall on levels, all of them with both
 * signs; each is judged by what its codes come to once their scale is refitted; and only what can be stored decides.
 *
 * The error against the reference's, same weights, mean over three kinds of rows, with and without an importance:
 * IQ4_NL 0.9199 and 0.9256, fifteen times as fast (AVX-512; AVX2 nearly nine times, SSE2 twice). The best of all
 * binary16 scales, tried one by one, comes to 0.9199 and 0.9255: nothing is left to search for. fast: 0.921 and 0.927,
 * twice as fast again. IQ4_XS 0.9085 and 0.921, ten times as fast (AVX2 five times): iq4_xs.h tells how.
 *
 * Choosing the scales and round_block are separate, so that an encoder may change the columns in between.
 */
#include "iq4_search.h"
#include "iq4_xs.h"

/* ---- IQ4_NL ---- */

/* How far a search goes. The numbers were found by trying, on rows that are in no test. */
typedef struct {
    spread first;  /* around the natural scale */
    spread second; /* around the best of these */
    int refits;    /* then by least squares, rounded */
} nl_plan;

/* By effort. */
static const nl_plan NL[3] = {{SPREAD(0.65f, 1.4f, 12, 1), NO_SPREAD, 1},
                              {SPREAD(0.6f, 1.6f, 24, 1), SPREAD(0.985f, 1.015f, 4, 1), 1},
                              {SPREAD(0.35f, 2.2f, 128, 1), SPREAD(0.98f, 1.02f, 16, 1), 4}};

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
        best = search_gains(x, w, v, &p->first, best, NULL, 0);
        best = search_gains(x, w, best.s, &p->second, best, NULL, 0);
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

static const float VALUES[16] __attribute__((aligned(64))) = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                              1,    13,   25,  38,  53,  69,  89,  113};

/* 32 values of one scale: one product per level, then a lookup per element. */
GT_INLINE void decode_block(const uint8_t *in, float s, float *y) {
    float levels[16] __attribute__((aligned(64)));
    for (int k = 0; k < 16; k += VW) vf_store(levels + k, vf_load(VALUES + k) * s);
    for (int i = 0; i < 16; i += VW) {
        vi codes = vi_load_u8(in + i);
        vf_store(y + i, one_of_16(levels, codes & 15));
        vf_store(y + 16 + i, one_of_16(levels, codes >> 4));
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
