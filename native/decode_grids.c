/* Decoders of the grid types IQ1, IQ2 and IQ3: super-blocks of 256 whose weights come 4 or 8 at a time from a codebook.
 *
 *   iq2_xxs  d, 8 x (4 index bytes, a word of four 7-bit signs and a 4-bit scale)
 *   iq2_xs   d, 32 words (9 bits index, 7 bits signs), 16 scales of 4 bits
 *   iq2_s    d, 32 index bytes, 32 sign bytes, 8 bytes of index bits 8 and 9, 16 scales of 4 bits
 *   iq3_xxs  d, 64 index bytes, 8 words as in iq2_xxs
 *   iq3_s    d, 64 index bytes, 8 bytes of index bit 8, 32 sign bytes, 8 scales of 4 bits
 *   iq1_s    d, 32 index bytes, 8 words (4 x index bits 8..10, 3 bits scale, the sign of the shift)
 *   iq1_m    32 index bytes, 32 nibbles (index bits 8..10, the sign of the shift), 4 words (4 x 3 bits scale, 4 bits of d)
 *
 * Everything is done 32 weights at a time: four words of eight signed bytes from the codebook, 32 sign bits in one
 * integer, and one factor for each half. Seven sign bits stand for eight, the eighth making the number of ones even.
 * A codebook (2 to 16 KB, grids.h) stays in the first cache, so this runs at the speed at which floats are written. */
#include "gguftool.h"
#include "bytes.h"
#include "grids.h"

/* VW floats, those in which a bit is set negated; the lowest bit is lane 0. */
GT_INLINE vf negated(vf v, uint32_t bits) {
    int32_t own[VW];
    for (int k = 0; k < VW; ++k) own[k] = 1 << k;
    const vi lane = vi_load(own), set = (vi_set1((int32_t)bits) & lane) == lane;
    return (vf)((vi)v ^ (set & INT32_MIN));
}

/* VW signed bytes of four words, from byte `at` on. */
GT_INLINE vf levels(const uint64_t words[4], int at) {
    const uint64_t *w = words + at / 8;
#if VW == 16
    return vf_from_int((vi)_mm512_cvtepi8_epi32(_mm_set_epi64x((long long)w[1], (long long)w[0])));
#elif VW == 8
    return vf_from_int((vi)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)w[0])));
#else
    const uint32_t half = (uint32_t)(w[0] >> 8 * (at % 8));
    return vf_from_int(vi_load_i8((const uint8_t *)&half));
#endif
}

/* 32 weights: levels times a factor for each half, signs from the bits. */
GT_INLINE void put_signed(float *y, const uint64_t words[4], uint32_t signs, float first, float second) {
#pragma GCC unroll 8
    for (int at = 0; at < 32; at += VW)
        vf_store(y + at, negated(levels(words, at) * (at < 16 ? first : second), signs >> at));
}

/* 32 weights: levels of -1, 0 or 1 plus an eighth, or minus one where the bit is set, times a factor for each half. */
GT_INLINE void put_shifted(float *y, const uint64_t words[4], uint32_t minus, float first, float second) {
    const vf eighth = vf_set1(0.125f);
#pragma GCC unroll 8
    for (int at = 0; at < 32; at += VW)
        vf_store(y + at, (levels(words, at) + negated(eighth, minus >> at)) * (at < 16 ? first : second));
}

/* Two rows of a codebook of four weights. */
GT_INLINE uint64_t pair(const uint32_t *grid, int first, int second) {
    return grid[first] | (uint64_t)grid[second] << 32;
}

/* Four bytes of seven bits, each given an eighth that makes its number of ones even. */
GT_INLINE uint32_t with_parity(uint32_t seven) {
    uint32_t odd = seven ^ (seven >> 4 & 0x0f0f0f0f);
    odd ^= odd >> 2 & 0x3f3f3f3f;
    odd ^= odd >> 1;
    return seven | (odd & 0x01010101) << 7;
}

/* The signs of the word that ends 32 weights of iq2_xxs and iq3_xxs; its top four bits are the scale. */
GT_INLINE uint32_t signs_of(uint32_t word) {
    return with_parity((word & 0x7f) | (word << 1 & 0x7f00) | (word << 2 & 0x7f0000) | (word << 3 & 0x7f000000));
}

GT_INLINE float quarter_step(float d, int code) { return d * (0.5f + (float)code) * 0.25f; }

static void iq2_xxs_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 66) {
        const float d = f16_load(in);
        for (const uint8_t *q = in + 2; q < in + 66; q += 8, y += 32) {
            const uint64_t words[4] = {grid_iq2_xxs[q[0]], grid_iq2_xxs[q[1]], grid_iq2_xxs[q[2]], grid_iq2_xxs[q[3]]};
            const uint32_t word = u32_load(q + 4);
            const float scale = quarter_step(d, (int)(word >> 28));
            put_signed(y, words, signs_of(word), scale, scale);
        }
    }
}

static void iq2_xs_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 74) {
        const float d = f16_load(in);
        for (int ib = 0; ib < 8; ++ib, y += 32) {
            uint64_t words[4];
            uint32_t seven = 0;
#pragma GCC unroll 4
            for (int l = 0; l < 4; ++l) {
                const uint32_t q = u16_load(in + 2 + 8 * ib + 2 * l);
                words[l] = grid_iq2_xs[q & 511];
                seven |= q >> 9 << 8 * l;
            }
            const int codes = in[66 + ib];
            put_signed(y, words, with_parity(seven), quarter_step(d, codes & 15), quarter_step(d, codes >> 4));
        }
    }
}

static void iq2_s_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 82) {
        const float d = f16_load(in);
        for (int ib = 0; ib < 8; ++ib, y += 32) {
            uint64_t words[4];
            const int high = in[66 + ib], codes = in[74 + ib];
#pragma GCC unroll 4
            for (int l = 0; l < 4; ++l) words[l] = grid_iq2_s[in[2 + 4 * ib + l] | (high << (8 - 2 * l) & 0x300)];
            put_signed(y, words, u32_load(in + 34 + 4 * ib), quarter_step(d, codes & 15), quarter_step(d, codes >> 4));
        }
    }
}

static void iq3_xxs_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 98) {
        const float d = f16_load(in);
        for (int ib = 0; ib < 8; ++ib, y += 32) {
            const uint8_t *q = in + 2 + 8 * ib;
            uint64_t words[4];
#pragma GCC unroll 4
            for (int l = 0; l < 4; ++l) words[l] = pair(grid_iq3_xxs, q[2 * l], q[2 * l + 1]);
            const uint32_t word = u32_load(in + 66 + 4 * ib);
            const float scale = d * (0.5f + (float)(word >> 28)) * 0.5f;
            put_signed(y, words, signs_of(word), scale, scale);
        }
    }
}

static void iq3_s_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 110) {
        const float d = f16_load(in);
        for (int ib = 0; ib < 8; ++ib, y += 32) {
            const uint8_t *q = in + 2 + 8 * ib;
            const int high = in[66 + ib], code = in[106 + ib / 2] >> 4 * (ib % 2) & 15;
            uint64_t words[4];
#pragma GCC unroll 4
            for (int l = 0; l < 4; ++l) {
                const int ninth = high << (8 - 2 * l);
                words[l] = pair(grid_iq3_s, q[2 * l] | (ninth & 0x100), q[2 * l + 1] | (ninth >> 1 & 0x100));
            }
            const float scale = d * (float)(1 + 2 * code);
            put_signed(y, words, u32_load(in + 74 + 4 * ib), scale, scale);
        }
    }
}

static void iq1_s_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 50) {
        const float d = f16_load(in);
        for (int ib = 0; ib < 8; ++ib, y += 32) {
            const uint32_t high = u16_load(in + 34 + 2 * ib);
            uint64_t words[4];
#pragma GCC unroll 4
            for (int l = 0; l < 4; ++l) words[l] = grid_iq1_s[in[2 + 4 * ib + l] | (high >> 3 * l & 7) << 8];
            const float scale = d * (float)(2 * (int)(high >> 12 & 7) + 1);
            put_shifted(y, words, 0 - (high >> 15), scale, scale);
        }
    }
}

static void iq1_m_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 56) {
        uint64_t scales; /* four words, their top nibbles d */
        memcpy(&scales, in + 48, 8);
        const float d = f16_to_float((uint16_t)((scales >> 12 & 0xf) | (scales >> 24 & 0xf0) | (scales >> 36 & 0xf00) |
                                                (scales >> 48 & 0xf000)));
        for (int ib = 0; ib < 8; ++ib, y += 32) {
            const uint32_t nibbles = u16_load(in + 32 + 2 * ib);
            const int codes = (int)(scales >> (16 * (ib / 2) + 6 * (ib % 2)));
            uint64_t words[4];
            uint32_t minus = 0;
#pragma GCC unroll 4
            for (int l = 0; l < 4; ++l) {
                words[l] = grid_iq1_s[in[4 * ib + l] | (nibbles >> 4 * l & 7) << 8];
                minus |= (nibbles >> (4 * l + 3) & 1) * 0xffu << 8 * l;
            }
            const float first = d * (float)(2 * (codes & 7) + 1), second = d * (float)(2 * (codes >> 3 & 7) + 1);
            put_shifted(y, words, minus, first, second);
        }
    }
}

const gt_codec GT_FN(gt_grids_decode)[] = {
    {16, 256, 66, 0, NULL, iq2_xxs_decode}, {17, 256, 74, 0, NULL, iq2_xs_decode}, {22, 256, 82, 0, NULL, iq2_s_decode},
    {18, 256, 98, 0, NULL, iq3_xxs_decode}, {21, 256, 110, 0, NULL, iq3_s_decode}, {19, 256, 50, 0, NULL, iq1_s_decode},
    {29, 256, 56, 0, NULL, iq1_m_decode},   {0},
};
