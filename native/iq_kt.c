/* The trellis types of ik_llama.cpp: IQ1_KT, IQ2_KT, IQ3_KT, IQ4_KT.
 *
 * A row is d (binary32), then super-blocks of eight blocks of 32; a block is a scale code and the codes of groups of
 * eight elements (four in IQ4_KT), and an element is (d * scale) * value: group by group one of 65536, 32768 or
 * 8192 points that a generator makes of the code (kt_codebook.h). Super-blocks:
 *
 *   IQ2_KT  68 bytes: 0 scale codes of blocks b and b + 4, low nibble first | 4 codes of the 32 groups, 16 bits each
 *   IQ3_KT 100 bytes: the same; points are magnitudes | 68 signs: bit b of byte j is element j of block b's
 *   IQ1_KT  56 bytes: 0 for each block the scale code and above it bit 12 of its four groups | 8 low bytes of the 32
 *           codes | 40 nibbles: bits 8..11 of groups J and J + 16
 *   IQ4_KT 128 bytes: 0 for each block 32 bits: which codebook, seven of scale + 64, three (bits 12..14) for each of its
 *           eight groups | 32 low bytes of the 64 codes | 96 nibbles of groups J and J + 32
 *
 * The scale of IQ2_KT and IQ1_KT is one of sixteen values from -127 to 113, that of IQ3_KT 0..15, of IQ4_KT -64..63.
 *
 * The reference looks a group up in one list of a few hundred to 2048 points, chosen by the signs of its coordinates,
 * for two (IQ2_KT) to 22 scales (IQ4_KT) around that of the largest element. Here a search visits the cells of the
 * codebook where the nearest point may be (kt_search.h), and scales are tried wherever a model of the error says that they
 * may be best (kt_blocks.h).
 *
 * Rows go through twice: first the model's scale of each block, of which the largest makes d; then scales and
 * points, block by block, and at last d by least squares, which changes no code. (A third time, with the d that was
 * found, is worth a thousandth; "best" tries four values of d instead.) Choosing the scales and choosing the points
 * are separate, so that an encoder may change the columns in between.
 *
 * The error against the reference's, same weights, mean over three kinds of rows, with and without an importance, and
 * the speed as a part of libggml's Q4_K encoder in the same run (AVX-512, AVX2, SSE2):
 *
 *   IQ1_KT 0.778 and 0.571 (best: 0.771, 0.567)   0.26 0.22 0.16
 *   IQ2_KT 0.792 and 0.604 (best: 0.780, 0.600)   0.23 0.21 0.15
 *   IQ3_KT 0.949 and 0.747 (best: 0.934, 0.732)   0.32 0.30 0.20
 *   IQ4_KT 0.899 and 0.719 (best: 0.886, 0.711)   0.28 0.28 0.19
 */
#include "kt_blocks.h"

/* By effort. */
static const plan IQ2_PLANS[3] = {{0.8f, 1.35f, 0.3f, {112, -1, 0, 0}, 1},
                                  {0.72f, 1.5f, 0.35f, {128, -1, 0, 0}, 1},
                                  {0.6f, 1.8f, 0.6f, {180, -1, 0, 0}, 4}};
static const plan IQ3_PLANS[3] = {{0.8f, 1.4f, 0.3f, {112, -1, 0, 0}, 1},
                                  {0.7f, 1.6f, 0.5f, {180, -1, 0, 0}, 1},
                                  {0.6f, 1.8f, 0.8f, {256, -1, 0, 0}, 4}};
static const plan IQ4_PLANS[3] = {{0.9f, 1.12f, 0.35f, {112, -1, 0, 0}, 1},
                                  {0.79f, 1.32f, 0.4f, {128, -1, 0, 0}, 1},
                                  {0.7f, 1.5f, 0.6f, {180, -1, 0, 0}, 4}};
static const plan IQ1_PLANS[3] = {{0.8f, 1.35f, 0.3f, {112, -1, 0, 0}, 1},
                                  {0.6f, 1.8f, 0.5f, {140, -1, 0, 0}, 1},
                                  {0.4f, 2.5f, 0.8f, {256, -1, 0, 0}, 4}};

/* c of the model is 2 pi Gamma(1 + 2/n) / (N V)^(2/n), with N points (and all signs), V the volume of the unit ball. */
#define IQ1 ((trellis){IQ1_KT, SHAPE_IQ1, 1, BOOK_IQ1, 0, 16, 56, 120.0f, 127.0f, 0.42f})
#define IQ2 ((trellis){IQ2_KT, SHAPE_IQ23, 1, BOOK_IQ2, 0, 16, 68, 120.0f, 127.0f, 0.25f})
#define IQ3 ((trellis){IQ3_KT, SHAPE_IQ23, 1, BOOK_IQ3, 1, 16, 100, 14.0f, 15.0f, 0.0627f})
#define IQ4 ((trellis){IQ4_KT, SHAPE_IQ4, 2, BOOK_IQ4, 0, 128, 128, 57.0f, 64.0f, 0.0139f})

/* ---- blocks of a row ---- */

typedef struct {
    const float *x, *w;
    int64_t n;
    float power, factor; /* a power of two near the largest magnitude, and its inverse */
    const gt_options *opt;
} row;

static row open_row(const float *x, const float *w, int64_t n, const gt_options *opt) {
    float most = 0;
    for (int64_t i = 0; i < n; ++i) most = magnitude(x[i]) > most ? magnitude(x[i]) : most;
    uint32_t power = f_bits(most) & 0x7f800000;
    power = power < 1u << 23 ? 1u << 23 : power > 253u << 23 ? 253u << 23 : power;
    return (row){x, opt->objective == GT_MSE ? NULL : w, n, f_from_bits(power), f_from_bits((254u << 23) - power), opt};
}

/* The reference's own weights: importance * sqrt(2 mean + x^2), without one mean / 2 + x^2, mean x^2 of the super-block. */
static void weigh_like_reference(const row *r, int64_t at, block *b) {
    const float *x = r->x + at / SUPER * SUPER;
    float sum = 0;
    for (int j = 0; j < SUPER; ++j) sum += (x[j] * r->factor) * (x[j] * r->factor);
    const float sigma2 = sum * (2.0f / SUPER);
    for (int j = 0; j < BLOCK; ++j) {
        float xx = b->x[j] * b->x[j];
        b->w[j] = r->w ? b->w[j] * root(sigma2 + xx) : 0.25f * sigma2 + xx;
    }
}

GT_INLINE void load_block(const trellis t, const row *r, int64_t at, block *b) {
    for (int j = 0; j < BLOCK; ++j) {
        b->x[j] = r->x[at + j] * r->factor;
        b->w[j] = r->w ? r->w[at + j] : 1.0f;
    }
    if (r->opt->objective == GT_REF) weigh_like_reference(r, at, b);
    measure_block(t, b);
}

/* Adds what d is refitted from: sums of w x y and w y y, y the values of d = 1. */
GT_INLINE void add_fit(const trellis t, const block *b, const choice *c, double fit[2]) {
    const float s = (float)scale_value(t, c->code) * (1.0f / UNIT);
    if (s == 0) return;
    for (int i = 0; i < BLOCK; i += t.f.dims) {
        const int16_t *p = point_at(&books[t.first_book + c->book], t.f.dims, c->at[i / t.f.dims]);
        for (int j = 0; j < t.f.dims; ++j) {
            float x = t.signs ? magnitude(b->x[i + j]) : b->x[i + j], y = (float)p[j / 2 * 2 * GROUP + j % 2] * s;
            fit[0] += (double)(b->w[i + j] * x * y);
            fit[1] += (double)(b->w[i + j] * y * y);
        }
    }
}

/* ---- bytes ---- */

/* Puts block i into a super-block that was zeros. */
GT_INLINE void pack(const trellis t, const choice *c, const float *x, int i, uint8_t *out) {
    const int groups = BLOCK / t.f.dims;
    uint32_t word = t.id == IQ4_KT ? (uint32_t)(c->book | c->code << 1) : (uint32_t)c->code;
    for (int k = 0; k < groups; ++k) {
        const uint32_t code = books[t.first_book + c->book].codes[c->at[k]];
        const int J = groups * i + k;
        if (t.id == IQ2_KT || t.id == IQ3_KT) {
            u16_store(out + 4 + 2 * J, (uint16_t)code);
            continue;
        }
        uint8_t *low = out + (t.id == IQ4_KT ? 32 : 8), *middle = low + 8 * groups;
        low[J] = (uint8_t)code;
        middle[J % (4 * groups)] |= (uint8_t)((code >> 8 & 15) << 4 * (J / (4 * groups)));
        word |= (code >> 12) << (t.id == IQ4_KT ? 8 + 3 * k : 4 + k);
    }
    if (t.id == IQ4_KT) u32_store(out + 4 * i, word);
    else if (t.id == IQ1_KT) out[i] = (uint8_t)word;
    else out[i % 4] |= (uint8_t)(word << 4 * (i / 4));
    if (t.signs)
        for (int j = 0; j < BLOCK; ++j) out[68 + j] |= (uint8_t)((x[j] < 0) << i);
}

/* ---- rows ---- */

/* Encodes all blocks with *d, and refits it, to 0 if nothing is gained; what is left of the row's energy comes back,
 * less a constant. */
GT_INLINE double encode_blocks(const trellis t, const plan *p, const row *r, float *d, uint8_t *out) {
    double fit[2] = {0, 0};
    memset(out, 0, (size_t)(r->n / SUPER * t.bytes));
    for (int64_t i = 0; i < r->n; i += BLOCK) {
        block b;
        choice c;
        load_block(t, r, i, &b);
        choose_block(t, p, &b, *d, &c);
        add_fit(t, &b, &c, fit);
        pack(t, &c, r->x + i, (int)(i % SUPER / BLOCK), out + i / SUPER * t.bytes);
    }
    const int gains = fit[0] > 0 && fit[1] > 0;
    *d = gains ? (float)(fit[0] / fit[1]) : 0.0f;
    if (!gains) return 0;
    return -fit[0] * (fit[0] / fit[1]);
}

/* Encodes the row with the best of the scales that the plan tries around d, each refitted; it comes back. */
GT_INLINE float encode_with_best(const trellis t, const plan *p, const row *r, float d, float limit, uint8_t *out) {
    double least = 1;
    float fitted = d;
    int best = 0;
    for (int k = 0; k < p->rows; ++k) {
        float scale = d * ROW_SCALES[k] < limit ? d * ROW_SCALES[k] : limit;
        double left = encode_blocks(t, p, r, &scale, out);
        if (!(left < least)) continue;
        least = left;
        best = k;
        fitted = scale;
    }
    if (best != p->rows - 1) {
        fitted = d * ROW_SCALES[best] < limit ? d * ROW_SCALES[best] : limit;
        encode_blocks(t, p, r, &fitted, out);
    }
    return fitted < limit ? fitted : limit;
}

GT_INLINE void encode_row(const trellis t, const plan plans[3], const float *x, const float *w, int64_t n,
                          uint8_t *out, const gt_options *opt) {
    const row r = open_row(x, w, n, opt);
    const float limit = 0x1.fffffep127f / (1.001f * LARGEST * t.largest) / r.power; /* whatever the codes, y is finite */
    float d = 0;
    for (int k = 0; k < t.books; ++k) open_book(t.first_book + k);
    for (int64_t i = 0; i < n; i += BLOCK) {
        block b;
        load_block(t, &r, i, &b);
        d = b.natural > d ? b.natural : d;
    }
    if (d > 0) d = encode_with_best(t, &plans[opt->effort], &r, d * (1.0f / t.top), limit, out + 4) * r.power;
    if (d == 0) memset(out + 4, 0, (size_t)(n / SUPER * t.bytes));
    memcpy(out, &d, 4);
}

static void encode_iq1(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(IQ1, IQ1_PLANS, x, w, n, out, opt);
}
static void encode_iq2(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(IQ2, IQ2_PLANS, x, w, n, out, opt);
}
static void encode_iq3(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(IQ3, IQ3_PLANS, x, w, n, out, opt);
}
static void encode_iq4(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(IQ4, IQ4_PLANS, x, w, n, out, opt);
}

const gt_codec GT_FN(gt_iq_kt)[] = {{IQ2_KT, SUPER, 68, 4, encode_iq2, NULL},
                                    {IQ3_KT, SUPER, 100, 4, encode_iq3, NULL},
                                    {IQ4_KT, SUPER, 128, 4, encode_iq4, NULL},
                                    {IQ1_KT, SUPER, 56, 4, encode_iq1, NULL},
                                    {0}};
