/* Decoders of the trellis types of ik_llama.cpp: super-blocks of 256, a scale for every 32 weights, and codebooks of
 * 8192 to 65536 vectors that are generated, not stored.
 *
 *   iq1_kt  row: f32 d. 56 bytes: 8 (scale, 13th bits of indices), 32 of indices, 16 of their next 4 bits
 *   iq2_kt  row: f32 d. 68: 4 of scales' nibbles, 32 indices of 16 bits
 *   iq3_kt  row: f32 d. 100: as iq2_kt, then 32 of signs, bit b of byte j that of element j of 32-block b
 *   iq4_kt  row: f32 d. 128: 8 u32 (a codebook bit, 7 of scale, 24 of indices' top), 64 of indices, 32 of their next 4
 *
 * Indices are 13 + 3 zero bits for 8 weights, 16 for 8, 16 for 8, and 15 and the codebook bit for 4. An index plus 4096
 * is the seed x of its vector: every weight takes x = x * MULTIPLIER, modulo 2^32, and is the sum of four bytes, of
 * which six bits each count, less 126. Nothing of it is sequential: weight k is seed * MULTIPLIER^(k+1), so the lanes
 * hold powers of the multiplier and a vector of weights costs one product of integers. iq3_kt takes magnitudes.
 *
 * The value is d * scale, rounded, times that integer. The scale of iq1_kt and iq2_kt is an entry of iq4_k's codebook. */
#include "gguftool.h"
#include "bytes.h"
#include "ik_values.h"

#define SUPER 256
#define FIRST 4096

/* MULTIPLIER is 0xcbac1fed; its powers 1 .. 8 */
#define P1 0xcbac1fedu
#define P2 (P1 * P1)
#define P3 (P2 * P1)
#define P4 (P3 * P1)
#define P5 (P4 * P1)
#define P6 (P5 * P1)
#define P7 (P6 * P1)
#define P8 (P7 * P1)

static const uint32_t POWERS_OF_8[16] __attribute__((aligned(64))) = {P1, P2, P3, P4, P5, P6, P7, P8,
                                                                      P1, P2, P3, P4, P5, P6, P7, P8};
static const uint32_t POWERS_OF_4[16] __attribute__((aligned(64))) = {P1, P2, P3, P4, P1, P2, P3, P4,
                                                                      P1, P2, P3, P4, P1, P2, P3, P4};
static const int32_t LANE[16] __attribute__((aligned(64))) = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

typedef uint32_t vu __attribute__((vector_size(4 * VW)));

GT_INLINE float f32_load(const uint8_t *p) { return f_from_bits(u32_load(p)); }

/* Lane l gets from[at + l / per]; per is 4 or 8, and `at` begins no earlier vector than it ends in. */
GT_INLINE vi spread(const int32_t *from, int at, int per) {
#if VW == 16
    const vi which = (vi_load(LANE) >> (per == 8 ? 3 : 2)) + (at & 15);
    return (vi)_mm512_permutexvar_epi32((__m512i)which, (__m512i)vi_load(from + (at & ~15)));
#elif VW == 8
    const vi which = (vi_load(LANE) >> (per == 8 ? 3 : 2)) + (at & 7);
    return (vi)_mm256_permutevar8x32_epi32((__m256i)vi_load(from + (at & ~7)), (__m256i)which);
#else
    (void)per;
    return vi_set1(from[at]);
#endif
}

/* Weights `at`, at + 1, ... of a super-block, -126 .. 126. */
GT_INLINE vi generated(const int32_t *seeds, int at, int per) {
    vu powers;
    memcpy(&powers, (per == 8 ? POWERS_OF_8 + at % 8 : POWERS_OF_4), sizeof powers);
    vu x = ((vu)spread(seeds, at / per, per) * powers) & 0x3f3f3f3f;
#if VW == 16
    const __m512i pairs = _mm512_maddubs_epi16((__m512i)x, _mm512_set1_epi8(1));
    return (vi)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)) - 126;
#elif VW == 8
    const __m256i pairs = _mm256_maddubs_epi16((__m256i)x, _mm256_set1_epi8(1));
    return (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)) - 126;
#else
    x += x >> 16;
    x += x >> 8;
    return (vi)(x & 255) - 126;
#endif
}

GT_INLINE void put_super(float *y, const int32_t *seeds, int per, const float scale[8]) {
#pragma GCC unroll 64
    for (int at = 0; at < SUPER; at += VW) vf_store(y + at, vf_from_int(generated(seeds, at, per)) * scale[at / 32]);
}

/* Nibble b of four bytes: all low ones first. */
GT_INLINE int scale_nibble(const uint8_t *in, int b) { return in[b % 4] >> 4 * (b / 4) & 15; }

GT_INLINE void seeds_of_words(const uint8_t *in, int32_t seeds[32]) {
    for (int k = 0; k < 32; k += VW) vi_store(seeds + k, vi_load_u16(in + 2 * k) + FIRST);
}

static void iq2_kt_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f32_load(in);
    in += 4;
    for (int64_t i = 0; i < n; i += SUPER, in += 68) {
        int32_t seeds[32];
        float scale[8];
        for (int b = 0; b < 8; ++b) scale[b] = d * (float)ik_values_4[scale_nibble(in, b)];
        seeds_of_words(in + 4, seeds);
        put_super(y + i, seeds, 8, scale);
    }
}

static void iq3_kt_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f32_load(in);
    in += 4;
    for (int64_t i = 0; i < n; i += SUPER, in += 100, y += SUPER) {
        int32_t seeds[32];
        seeds_of_words(in + 4, seeds);
        for (int b = 0; b < 8; ++b) {
            const float scale = d * (float)scale_nibble(in, b);
#pragma GCC unroll 8
            for (int j = 0; j < 32; j += VW) {
                const vi sign = vi_load_u8(in + 68 + j) << (31 - b) & INT32_MIN;
                const vf v = vf_abs(vf_from_int(generated(seeds, 32 * b + j, 8))) * scale;
                vf_store(y + 32 * b + j, (vf)((vi)v ^ sign));
            }
        }
    }
}

static void iq4_kt_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f32_load(in);
    in += 4;
    for (int64_t i = 0; i < n; i += SUPER, in += 128) {
        int32_t seeds[64], h[16] = {0};
        float scale[8];
        memcpy(h, in, 32);
        for (int b = 0; b < 8; ++b) scale[b] = d * (float)((h[b] >> 1 & 127) - 64);
#pragma GCC unroll 16
        for (int k = 0; k < 64; k += VW) { /* group k % 8 of 32-block k / 8 */
            const vi head = spread(h, k / 8, 8), top = ((vi_load(LANE) + k % 8) & 7) * 3 + 8;
            const vi middle = vi_load_u8(in + 96 + k % 32) >> 4 * (k / 32) & 15;
            const vi index = vi_load_u8(in + 32 + k) | middle << 8 | (head >> top & 7) << 12 | (head & 1) << 15;
            vi_store(seeds + k, index + FIRST);
        }
        put_super(y + i, seeds, 4, scale);
    }
}

static void iq1_kt_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f32_load(in);
    in += 4;
    for (int64_t i = 0; i < n; i += SUPER, in += 56) {
        int32_t seeds[32], h[16];
        float scale[8];
        for (int b = 0; b < 16; ++b) h[b] = in[b]; /* eight of them count */
        for (int b = 0; b < 8; ++b) scale[b] = d * (float)ik_values_4[h[b] & 15];
#pragma GCC unroll 8
        for (int k = 0; k < 32; k += VW) { /* group k % 4 of 32-block k / 4 */
            const vi head = spread(h, k / 4, 4), top = (vi_load(LANE) & 3) + 4;
            const vi middle = vi_load_u8(in + 40 + k % 16) >> 4 * (k / 16) & 15;
            vi_store(seeds + k, (vi_load_u8(in + 8 + k) | middle << 8 | (head >> top & 1) << 12) + FIRST);
        }
        put_super(y + i, seeds, 8, scale);
    }
}

const gt_codec GT_FN(gt_kt_decode)[] = {
    {153, SUPER, 68, 4, NULL, iq2_kt_decode},
    {154, SUPER, 100, 4, NULL, iq3_kt_decode},
    {155, SUPER, 128, 4, NULL, iq4_kt_decode},
    {158, SUPER, 56, 4, NULL, iq1_kt_decode},
    {0},
};
