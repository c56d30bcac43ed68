/* Encoders of IQ2_K, IQ3_K, IQ4_K, IQ5_K and IQ6_K: super-blocks of 256 weights with sixteen scales and shifts.
 *
 * x = (d * c_j) * (V[q] + shift_j) for the sixteen weights of block j; V has 4, 8, 16, 32 or 64 integers, closer
 * together near zero; a bit per block says whether it is shifted. Each begins with d (binary16) and these bits; then
 * IQ2_K, 76 bytes:  8 of scales (nibbles, c + 8), 64 of codes, two bits each, 32 apart in a byte
 * IQ3_K, 110 bytes: 2 of signs of c, 8 of nibbles (|c| - 1) / 2 (c is odd), 64 of low bits as above, 32 of third bits
 * IQ4_K, 144 bytes: 4 and 8 of c + 32 (upper pairs of bits, nibbles), 128 of codes, nibbles 16 apart
 * IQ5_K, 176 bytes: 4 and 8 as above, 128 of low nibbles, 32 apart, 32 of fifth bits
 * IQ6_K, 212 bytes: 16 scales (bytes), 128 of low nibbles, 32 apart, 64 of upper pairs of bits
 *
 * iq_k_search.h tells how scales are found. The error against the reference's, same weights, mean over three kinds of
 * rows, with and without an importance, and Mweights/s of one core with AVX-512 (ggml's Q4_K: 8.5 there):
 *            IQ2_K             IQ3_K             IQ4_K             IQ5_K             IQ6_K
 * fast     0.896 0.796 96    0.932 0.884 78    0.943 0.871 91    0.822 0.838 90    0.863 0.862 77
 * default  0.882 0.790 33    0.916 0.874 36    0.915 0.859 36    0.786 0.811 33    0.802 0.819 37
 * best     0.880 0.788 2.8   0.907 0.869 4.0   0.904 0.853 3.1   0.760 0.795 2.0   0.769 0.797 2.0
 * AVX2 has 0.4 to 0.6 of that speed, but a fifth in IQ6_K, whose codebook takes eight of its registers. The
 * specification's search over every scale, with d refitted, was at 0.89, 0.92, 0.92, 0.80 and 0.82 with an importance:
 * the rest is won by trying several d. Negative d were tried too, for the one scale that only the negative side has:
 * they gain nothing.
 *
 * Choosing the scales and round_codes are separate, so that an encoder may change the columns in between.
 */
#include "iq_k_search.h"

/* codebook, its largest magnitude, least, most, step, has_zero, mean_factor, floored */
static const iq_type TYPE_IQ2_K = {&V2, 31.0f, 8.0f, 7.0f, 1.0f, 1, 1.5f, 1};
static const iq_type TYPE_IQ3_K = {&V3, 63.0f, 31.0f, 31.0f, 2.0f, 0, 1.5f, 1};
static const iq_type TYPE_IQ4_K = {&V4, 127.0f, 32.0f, 31.0f, 1.0f, 1, 2.0f, 0};
static const iq_type TYPE_IQ5_K = {&V5, 126.0f, 32.0f, 31.0f, 1.0f, 1, 2.0f, 1};
static const iq_type TYPE_IQ6_K = {&V6, 127.0f, 127.0f, 127.0f, 1.0f, 1, 2.0f, 1};

/* By effort. */
static const plan IQ2_K[3] = {
    {SPREAD(0.55f, 1.25f, 4, 1), 0.97f, {-1, 4}, 0, {-1, 2}, 0, 1, 0.88f, 0.0f},
    {SPREAD(0.35f, 1.45f, 6, 1), 0.9f, {-3, 2}, 0, {-1, 5}, 1, 4, 0.92f, 0.07f},
    {SPREAD(0.3f, 1.6f, 64, 1), 0.95f, {-4, 10}, 2, {-4, 8}, 2, 32, 0.7f, 0.02f}};
static const plan IQ3_K[3] = {
    {SPREAD(0.75f, 1.3f, 6, 1), 1.0f, {-1, 5}, 0, {0, 0}, 0, 0, 0.0f, 0.0f},
    {SPREAD(0.65f, 1.7f, 12, 1), 1.0f, {-3, 5}, 0, {-1, 3}, 0, 6, 0.98f, 0.03f},
    {SPREAD(0.5f, 1.9f, 64, 1), 1.0f, {-5, 10}, 2, {-4, 8}, 1, 25, 0.82f, 0.015f}};
static const plan IQ4_K[3] = {
    {SPREAD(0.95f, 1.35f, 8, 1), 1.0f, {-1, 3}, 0, {0, 0}, 0, 0, 0.0f, 0.0f},
    {SPREAD(0.9f, 1.7f, 20, 1), 1.03f, {-1, 4}, 0, {-2, 5}, 1, 2, 0.97f, 0.07f},
    {SPREAD(0.55f, 1.7f, 64, 1), 1.0f, {-5, 10}, 2, {-6, 12}, 1, 24, 0.84f, 0.015f}};
static const plan IQ5_K[3] = {
    {SPREAD(0.85f, 1.3f, 4, 1), 1.0f, {-3, 7}, 0, {0, 0}, 0, 0, 0.0f, 0.0f},
    {SPREAD(0.9f, 1.4f, 22, 1), 1.03f, {-2, 7}, 0, {-4, 9}, 0, 2, 0.94f, 0.03f},
    {SPREAD(0.6f, 1.6f, 64, 1), 1.0f, {-8, 16}, 1, {-8, 16}, 1, 32, 0.82f, 0.01f}};
static const plan IQ6_K[3] = {
    {SPREAD(0.95f, 1.3f, 8, 1), 1.0f, {-1, 5}, 0, {0, 0}, 0, 0, 0.0f, 0.0f},
    {SPREAD(0.95f, 1.3f, 24, 1), 1.0f, {-5, 18}, 0, {0, 0}, 0, 0, 0.0f, 0.0f},
    {SPREAD(0.65f, 1.6f, 64, 1), 1.0f, {-16, 32}, 1, {-24, 48}, 1, 16, 0.84f, 0.02f}};

/* ---- the bytes ---- */

static int shift_bits(const float shift[LANES]) {
    int bits = 0;
    for (int j = 0; j < LANES; ++j) bits |= (shift[j] != 0.0f) << j;
    return bits;
}

/* Every type begins with d and the shift bits. */
static void pack_head(const solution *s, float d, uint8_t *out) {
    u16_store(out, f16_from_scale(d));
    u16_store(out + 2, (uint16_t)shift_bits(s->shift));
}

/* Two bits of each code, four codes that lie 32 apart to a byte. */
static void pack_pairs(const uint8_t *codes, int at, uint8_t *out) {
    for (int h = 0; h < 2; ++h)
        for (int i = 0; i < 32; ++i) {
            const uint8_t *q = codes + 128 * h + i;
            out[32 * h + i] = (uint8_t)((q[0] >> at & 3) | (q[32] >> at & 3) << 2 | (q[64] >> at & 3) << 4 |
                                        (q[96] >> at & 3) << 6);
        }
}

/* The low nibbles of codes 32 apart. */
static void pack_low_nibbles(const uint8_t *codes, uint8_t *out) {
    for (int h = 0; h < 4; ++h)
        for (int i = 0; i < 32; ++i)
            out[32 * h + i] = (uint8_t)((codes[64 * h + i] & 15) | (codes[64 * h + 32 + i] & 15) << 4);
}

/* One bit of each code, eight codes that lie 32 apart to a byte. */
static void pack_bits(const uint8_t *codes, int at, uint8_t *out) {
    for (int i = 0; i < 32; ++i) {
        int bits = 0;
        for (int k = 0; k < 8; ++k) bits |= (codes[32 * k + i] >> at & 1) << k;
        out[i] = (uint8_t)bits;
    }
}

/* Nibbles of the scales, and their upper two bits. */
static void pack_scales(const int c[LANES], uint8_t *nibbles, uint8_t *upper) {
    for (int j = 0; j < LANES / 2; ++j) nibbles[j] = (uint8_t)((c[2 * j] & 15) | (c[2 * j + 1] & 15) << 4);
    for (int j = 0; upper && j < LANES / 4; ++j)
        upper[j] = (uint8_t)(c[4 * j] >> 4 | c[4 * j + 1] >> 4 << 2 | c[4 * j + 2] >> 4 << 4 | c[4 * j + 3] >> 4 << 6);
}

static void raised(const float c[LANES], int by, int out[LANES]) {
    for (int j = 0; j < LANES; ++j) out[j] = (int)c[j] + by;
}

static void pack_iq2_k(const uint8_t *codes, const solution *s, float d, uint8_t *out) {
    int c[LANES];
    raised(s->c, 8, c);
    pack_head(s, d, out);
    pack_scales(c, out + 4, NULL);
    pack_pairs(codes, 0, out + 12);
}

static void pack_iq3_k(const uint8_t *codes, const solution *s, float d, uint8_t *out) {
    int c[LANES], signs = 0;
    for (int j = 0; j < LANES; ++j) {
        signs |= (s->c[j] < 0.0f) << j;
        c[j] = (int)(s->c[j] < 0.0f ? -s->c[j] : s->c[j]) / 2;
    }
    pack_head(s, d, out);
    u16_store(out + 4, (uint16_t)signs);
    pack_scales(c, out + 6, NULL);
    pack_pairs(codes, 0, out + 14);
    pack_bits(codes, 2, out + 78);
}

static void pack_iq4_k(const uint8_t *codes, const solution *s, float d, uint8_t *out) {
    int c[LANES];
    raised(s->c, 32, c);
    pack_head(s, d, out);
    pack_scales(c, out + 8, out + 4);
    for (int g = 0; g < 8; ++g)
        for (int i = 0; i < 16; ++i)
            out[16 + 16 * g + i] = (uint8_t)(codes[32 * g + i] | codes[32 * g + 16 + i] << 4);
}

static void pack_iq5_k(const uint8_t *codes, const solution *s, float d, uint8_t *out) {
    int c[LANES];
    raised(s->c, 32, c);
    pack_head(s, d, out);
    pack_scales(c, out + 8, out + 4);
    pack_low_nibbles(codes, out + 16);
    pack_bits(codes, 4, out + 144);
}

static void pack_iq6_k(const uint8_t *codes, const solution *s, float d, uint8_t *out) {
    pack_head(s, d, out);
    for (int j = 0; j < LANES; ++j) out[4 + j] = (uint8_t)(int8_t)(int)s->c[j];
    pack_low_nibbles(codes, out + 20);
    pack_pairs(codes, 4, out + 148);
}

#define ENCODER(type, TYPE, PLANS, n_bytes)                                                                         \
    static void encode_##type(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {     \
        const plan *p = &PLANS[opt->effort];                                                                        \
        for (int64_t i = 0; i < n; i += SUPER, out += n_bytes) {                                                    \
            uint8_t codes[SUPER];                                                                                   \
            tile t;                                                                                                 \
            solution s = {{0}, {0}, {0}, {0}, 0.0f, 0.0f};                                                          \
            if (fill_tile(&t, &TYPE, x + i, w ? w + i : NULL, opt->objective)) choose_scales(&t, &TYPE, p, &s);     \
            else t.power = 1.0f;                                                                                    \
            round_codes(x + i, &TYPE, s.d * t.power, s.c, s.shift, codes);                                          \
            pack_##type(codes, &s, s.d * t.power, out);                                                             \
        }                                                                                                           \
    }
ENCODER(iq2_k, TYPE_IQ2_K, IQ2_K, 76)
ENCODER(iq3_k, TYPE_IQ3_K, IQ3_K, 110)
ENCODER(iq4_k, TYPE_IQ4_K, IQ4_K, 144)
ENCODER(iq5_k, TYPE_IQ5_K, IQ5_K, 176)
ENCODER(iq6_k, TYPE_IQ6_K, IQ6_K, 212)

const gt_codec GT_FN(gt_iq_k)[] = {{137, SUPER, 76, 0, encode_iq2_k, NULL},  {138, SUPER, 110, 0, encode_iq3_k, NULL},
                                   {139, SUPER, 144, 0, encode_iq4_k, NULL}, {140, SUPER, 176, 0, encode_iq5_k, NULL},
                                   {141, SUPER, 212, 0, encode_iq6_k, NULL}, {0}};
