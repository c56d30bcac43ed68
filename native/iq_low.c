/* Encoders of IQ2_KS, IQ3_KS and IQ2_KL, of ik_llama.cpp.
 *
 * A row is a binary16 d and super-blocks of 256; each 32 weights have an integer scale c. IQ2_KS (70 bytes) and IQ3_KS
 * (102): x = d * c * (V[q] + shift), c in -16..15, V of four or eight values, a shift bit for each 32. IQ2_KL (86): two
 * weights are one of 32 pairs, c in -32..31. All three begin with a word of shift bits and high bits of c + 16 or + 32,
 * then four bytes of low nibbles, then the codes' low bits (two, or four for a pair), then their high bits.
 *
 * The reference tries scales near the one that puts the largest element at the end of the codebook, rounds them once,
 * keeps the shift bits of the real scales, and takes d from the largest; IQ2_KL's pairs come from lists of eight. Here
 * scales, signs and shifts are tried as they are stored, dozens of d are weighed against each other, and the best of
 * all pairs is found; iq_low_search.h tells how. The error against the reference's, same weights, mean over three kinds
 * of rows, with and without an importance, and the speed as a multiple of libggml's Q4_K encoder (AVX-512, AVX2):
 *   IQ2_KS  default 0.903 0.778, 5.2 3.0  fast 0.905 0.780, 10.6 6.3  best 0.902 0.778
 *   IQ3_KS          0.926 0.843, 4.6 2.6       0.928 0.845, 9.4 5.4       0.924 0.8415
 *   IQ2_KL          0.904 0.870, 3.7 2.7       0.905 0.871, 6.4 4.6       0.903 0.869
 *
 * Choosing d, search and the rounding are separate, so that an encoder may change the columns in between.
 */
#include "gguftool.h"
#include "iq_low_search.h"

static const type_of IQ2_KS = {FOUR, 70, 5.0f, 31.0f, 16.0f, 1.5f, 0.25f / 1.5f};
static const type_of IQ3_KS = {EIGHT, 102, 4.0f, 63.0f, 16.0f, 2.0f, 0.0f};
static const type_of IQ2_KL = {DUOS, 86, 0.0f, 63.0f, 32.0f, 2.25f, -1.0f};

/* By effort. The numbers were found by trying, on rows that are in no test. */
static const plan IQ2_KS_PLANS[3] = {
    {SPREAD(0.4f, 1.9f, 8, 1), 0.6f, 1.07f, 2, 1, 0, {0, 2}, {0, 2}},
    {SPREAD(0.4f, 1.9f, 12, 1), 0.4f, 1.05f, 4, 1, 1, {-1, 3}, {-1, 4}},
    {SPREAD(0.4f, 1.9f, 16, 1), 0.4f, 1.0125f, 16, 4, 4, {-2, 5}, {-3, 8}}};
static const plan IQ3_KS_PLANS[3] = {
    {SPREAD(0.5f, 1.7f, 8, 1), 0.6f, 1.07f, 2, 1, 0, {0, 2}, {0, 2}},
    {SPREAD(0.5f, 1.7f, 12, 1), 0.4f, 1.05f, 4, 1, 1, {-1, 3}, {-1, 4}},
    {SPREAD(0.5f, 1.7f, 16, 1), 0.4f, 1.0125f, 16, 4, 4, {-2, 5}, {-3, 8}}};
static const plan IQ2_KL_PLANS[3] = {
    {SPREAD(0.5f, 1.7f, 8, 1), 0.6f, 1.07f, 2, 1, 0, {0, 2}, {0, 2}},
    {SPREAD(0.5f, 1.7f, 12, 1), 0.4f, 1.05f, 4, 1, 1, {-1, 3}, {-1, 4}},
    {SPREAD(0.5f, 1.7f, 16, 1), 0.4f, 1.0125f, 16, 4, 4, {-2, 5}, {-3, 8}}};

/* ---- rounding with given scales ---- */

/* Codes of 32 elements at one scale: of the values, or (KL) pair numbers, sixteen of them. */
GT_INLINE void round_values(int kind, const float *x, float s, float shift, uint8_t codes[BLOCK]) {
    const codebook *c = values_of(kind);
    const book b = open_book(c);
    vf inverse = vf_set1(s != 0.0f ? 1.0f / s : 0.0f);
    vi q[GT_NV(BLOCK)];
    for (int k = 0; k < GT_NV(BLOCK); ++k) q[k] = nearest_code(vf_load(x + k * VW) * inverse - shift, &b, c);
    vi_store_bytes32(codes, q);
}

/* Sixteen blocks' pair numbers at once: the tile is on its side anyway. */
GT_INLINE void round_pairs(const tile *t, const solution *s, float d, uint8_t codes[LANES][BLOCK / 2]) {
    for (int o = 0; o < LANES; o += VW) {
        vf inverse = inverse_of(d * vf_load(s->c + o));
        for (int p = 0; p < BLOCK / 2; ++p) {
            const float *x = t->x + 2 * p * LANES + o;
            vf t0 = vf_load(x) * inverse, t1 = vf_load(x + LANES) * inverse;
            vi first = first_of_pair(t0, t1, vf_load(t->ratio + p * LANES + o)), q = vi_trunc(one_of_8(BEGINS, first));
            for (int k = 0; k < 4; ++k) q -= t1 >= one_of_8(SPLITS[k], first);
            for (int j = 0; j < VW; ++j) codes[o + j][p] = (uint8_t)q[j];
        }
    }
}

/* ---- the bytes ---- */

/* The two low bits of 256 codes, four to a byte, 32 elements apart. */
GT_INLINE void pack_low(const uint8_t codes[SUPER], uint8_t *out) {
    for (int h = 0; h < 2; ++h)
        for (int i = 0; i < 32; ++i) {
            const uint8_t *q = codes + 128 * h + i;
            out[32 * h + i] = (uint8_t)((q[0] & 3) | (q[32] & 3) << 2 | (q[64] & 3) << 4 | (q[96] & 3) << 6);
        }
}

static void pack_iq2_ks(const uint8_t codes[SUPER], const float *c, const float *shift, uint8_t *out) {
    int extra = 0;
    memset(out, 0, 6);
    for (int j = 0; j < SUBS; ++j) {
        int s = (int)c[j] + 16;
        extra |= (s >> 4) << (8 + j) | (shift[j] > 0.0f) << j;
        out[2 + j / 2] |= (uint8_t)((s & 15) << 4 * (j % 2));
    }
    u16_store(out, (uint16_t)extra);
    pack_low(codes, out + 6);
}

static void pack_iq3_ks(const uint8_t codes[SUPER], const float *c, const float *shift, uint8_t *out) {
    int extra = 0;
    memset(out, 0, 6);
    for (int j = 0; j < SUBS; ++j) {
        int s = (int)c[j] + 16;
        extra |= (s >> 4) << j | (shift[j] > 0.0f) << (8 + j);
        out[2 + j % 4] |= (uint8_t)((s & 15) << 4 * (j / 4));
    }
    u16_store(out, (uint16_t)extra);
    pack_low(codes, out + 6);
    for (int i = 0; i < 32; ++i) {
        int high = 0;
        for (int k = 0; k < 8; ++k) high |= (codes[32 * k + i] >> 2) << k;
        out[70 + i] = (uint8_t)high;
    }
}

static void pack_iq2_kl(uint8_t codes[SUBS][BLOCK / 2], const float *c, uint8_t *out) {
    int extra = 0;
    memset(out, 0, 86);
    for (int j = 0; j < SUBS; ++j) {
        int s = (int)c[j] + 32;
        extra |= (s >> 4) << 2 * j;
        out[2 + j % 4] |= (uint8_t)((s & 15) << 4 * (j / 4));
        for (int p = 0; p < 16; ++p) {
            out[6 + 16 * (j / 2) + p] |= (uint8_t)((codes[j][p] & 15) << 4 * (j % 2));
            out[70 + p] |= (uint8_t)((codes[j][p] >> 4) << j);
        }
    }
    u16_store(out, (uint16_t)extra);
}

GT_INLINE void write_tile(int kind, const row *r, const tile *t, const solution *s, float d, int64_t i, int blocks) {
    uint8_t *out = r->out + HEADER + i / SUPER * r->type->bytes, codes[SUPER], pairs[LANES][BLOCK / 2];
    if (kind == DUOS) round_pairs(t, s, d, pairs);
    for (int h = 0; h < blocks; h += SUBS, out += r->type->bytes) {
        if (kind == DUOS) {
            pack_iq2_kl(pairs + h, s->c + h, out);
            continue;
        }
        for (int j = h; j < h + SUBS; ++j)
            round_values(kind, r->x + i + j * BLOCK, d * r->power * s->c[j], s->shift[j], codes + (j - h) * BLOCK);
        (kind == FOUR ? pack_iq2_ks : pack_iq3_ks)(codes, s->c + h, s->shift + h, out);
    }
}

GT_INLINE void encode_row(int kind, const type_of *type, const plan *plans, const float *x, const float *w, int64_t n,
                          uint8_t *out, const gt_options *opt) {
    vf m = {0};
    for (int64_t i = 0; i < n; i += VW) m = vf_max(m, vf_abs(vf_load(x + i)));
    float largest = vf_max_of(m);
    if (largest < 0.5f * LEAST_SCALE) { /* nothing that a scale could express */
        memset(out, 0, (size_t)(HEADER + n / SUPER * type->bytes));
        return;
    }
    row r = {type, &plans[opt->effort], x, w, n, out, opt->objective, 0.0f, largest > FAR};
    if (r.far) largest = FAR;
    r.power = power_of_two_of(vf_set1(largest))[0];
    const float d = choose_d(kind, &r, largest * (1.0f / r.power));
    for (int64_t i = 0; i < n; i += BATCH) {
        tile t;
        solution s;
        outcome sum = {d, 0.0, 0.0, 0.0};
        int blocks = fill_tile(&t, &r, i);
        read_notes(&r, i, &t, blocks);
        search(kind, &r, &t, d, &s, &sum);
        write_tile(kind, &r, &t, &s, d, i, blocks);
    }
    u16_store(out, f16_from_scale(d * r.power));
}

static void encode_iq2_ks(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(FOUR, &IQ2_KS, IQ2_KS_PLANS, x, w, n, out, opt);
}
static void encode_iq3_ks(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(EIGHT, &IQ3_KS, IQ3_KS_PLANS, x, w, n, out, opt);
}
static void encode_iq2_kl(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(DUOS, &IQ2_KL, IQ2_KL_PLANS, x, w, n, out, opt);
}

const gt_codec GT_FN(gt_iq_low)[] = {{145, SUPER, 70, HEADER, encode_iq2_ks, NULL},
                                     {156, SUPER, 102, HEADER, encode_iq3_ks, NULL},
                                     {157, SUPER, 86, HEADER, encode_iq2_kl, NULL},
                                     {0}};
