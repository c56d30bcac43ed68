/* Decoders of Q2_K, Q3_K, Q4_K, Q5_K and Q6_K: super-blocks of 256 with integer sub-scales.
 *
 *   q2_K  16 bytes (low nibble scale, high nibble minimum, per 16), 64 bytes of 2-bit codes, d, dmin
 *   q3_K  32 bytes of high bits, 64 bytes of low 2 bits, 12 bytes of 6-bit scales, d
 *   q4_K  d, dmin, 12 bytes of 6-bit scales and minima (per 32), 128 bytes of nibbles
 *   q5_K  d, dmin, 12 bytes as in q4_K, 32 bytes of fifth bits, 128 bytes of nibbles
 *   q6_K  128 bytes of low nibbles, 64 bytes of high 2 bits, 16 signed scales, d
 *
 * Codes are woven: a byte of the 2-bit fields holds elements l, l+32, l+64, l+96 of its half, a byte of nibbles l and
 * l+32 of its quarter. So one vector of bytes is loaded once and shifted for each of them. Products are rounded in
 * the format's order: (d * scale) * code - dmin * minimum. */
#include "gguftool.h"
#include "bytes.h"

/* Vector k of 16 or 8 sub-block factors: d times each integer. */
GT_INLINE void scales_from_ints(const uint8_t *ints, int n, float d, float *out) {
    for (int k = 0; k < n; k += VW) vf_store(out + k, vf_from_int(vi_load_u8(ints + k)) * d);
}

GT_INLINE vf times(vi q, const float *scale, int sub) { return vf_from_int(q) * scale[sub]; }

static void q2_K_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 84, y += 256) {
        float scale[16], min[16];
        const float d = f16_load(in + 80), dmin = f16_load(in + 82);
        for (int k = 0; k < 16; k += VW) {
            vi both = vi_load_u8(in + k);
            vf_store(scale + k, vf_from_int(both & 15) * d);
            vf_store(min + k, vf_from_int(both >> 4) * dmin);
        }
        for (int half = 0; half < 2; ++half)
            for (int l = 0; l < 32; l += VW) {
                vi codes = vi_load_u8(in + 16 + 32 * half + l);
#pragma GCC unroll 4
                for (int g = 0; g < 4; ++g) {
                    const int at = 128 * half + 32 * g + l;
                    vf_store(y + at, times(codes >> (2 * g) & 3, scale, at / 16) - min[at / 16]);
                }
            }
    }
}

/* The twelve bytes of q3_K's scales as sixteen values of -32..31. */
GT_INLINE void q3_K_scales(const uint8_t *packed, int8_t out[16]) {
    uint32_t a = u32_load(packed), b = u32_load(packed + 4), c = u32_load(packed + 8);
    const uint32_t low = 0x0f0f0f0f, two = 0x03030303;
    uint32_t s[4] = {(a & low) | (c & two) << 4, (b & low) | (c >> 2 & two) << 4, (a >> 4 & low) | (c >> 4 & two) << 4,
                     (b >> 4 & low) | (c >> 6 & two) << 4};
    memcpy(out, s, 16);
    for (int j = 0; j < 16; ++j) out[j] = (int8_t)(out[j] - 32);
}

static void q3_K_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 110, y += 256) {
        int8_t s[16];
        float scale[16];
        const float d = f16_load(in + 108);
        q3_K_scales(in + 96, s);
        for (int k = 0; k < 16; k += VW) vf_store(scale + k, vf_from_int(vi_load_i8((uint8_t *)s + k)) * d);
        for (int l = 0; l < 32; l += VW) {
            const vi high = ~vi_load_u8(in + l); /* a clear bit takes 4 off */
#pragma GCC unroll 2
            for (int half = 0; half < 2; ++half) {
                vi codes = vi_load_u8(in + 32 + 32 * half + l);
#pragma GCC unroll 4
                for (int g = 0; g < 4; ++g) {
                    const int at = 128 * half + 32 * g + l, bit = 4 * half + g;
                    vi minus = bit < 2 ? high << (2 - bit) : high >> (bit - 2);
                    vf_store(y + at, times((codes >> (2 * g) & 3) - (minus & 4), scale, at / 16));
                }
            }
        }
    }
}

/* The twelve bytes that q4_K and q5_K share: eight 6-bit scales, then eight 6-bit minima. */
GT_INLINE void affine_scales(const uint8_t *in, float scale[16], float min[16]) {
    uint32_t a = u32_load(in + 4), b = u32_load(in + 8), c = u32_load(in + 12);
    const uint32_t six = 0x3f3f3f3f, low = 0x0f0f0f0f, two = 0x03030303;
    uint32_t s[8] = {a & six, (c & low) | (a >> 6 & two) << 4, 0, 0, b & six, (c >> 4 & low) | (b >> 6 & two) << 4, 0, 0};
    uint8_t bytes[32];
    memcpy(bytes, s, 32);
    scales_from_ints(bytes, VW < 8 ? 8 : VW, f16_load(in), scale);
    scales_from_ints(bytes + 16, VW < 8 ? 8 : VW, f16_load(in + 2), min);
}

static void q4_K_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 144, y += 256) {
        float scale[16], min[16];
        affine_scales(in, scale, min);
#pragma GCC unroll 4
        for (int quarter = 0; quarter < 4; ++quarter)
            for (int l = 0; l < 32; l += VW) {
                vi codes = vi_load_u8(in + 16 + 32 * quarter + l);
                const int j = 2 * quarter;
                vf_store(y + 64 * quarter + l, times(codes & 15, scale, j) - min[j]);
                vf_store(y + 64 * quarter + 32 + l, times(codes >> 4, scale, j + 1) - min[j + 1]);
            }
    }
}

static void q5_K_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 176, y += 256) {
        float scale[16], min[16];
        affine_scales(in, scale, min);
        for (int l = 0; l < 32; l += VW) {
            const vi fifth = vi_load_u8(in + 16 + l);
#pragma GCC unroll 4
            for (int quarter = 0; quarter < 4; ++quarter) {
                vi codes = vi_load_u8(in + 48 + 32 * quarter + l);
                const int j = 2 * quarter;
                vi lo = (codes & 15) | (fifth << 4 >> j & 16), hi = codes >> 4 | (fifth << 3 >> j & 16);
                vf_store(y + 64 * quarter + l, times(lo, scale, j) - min[j]);
                vf_store(y + 64 * quarter + 32 + l, times(hi, scale, j + 1) - min[j + 1]);
            }
        }
    }
}

static void q6_K_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 256, in += 210, y += 256) {
        float scale[16];
        const float d = f16_load(in + 208);
        for (int k = 0; k < 16; k += VW) vf_store(scale + k, vf_from_int(vi_load_i8(in + 192 + k)) * d);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half)
            for (int l = 0; l < 32; l += VW) {
                const vi high = vi_load_u8(in + 128 + 32 * half + l);
                const vi even = vi_load_u8(in + 64 * half + l), odd = vi_load_u8(in + 64 * half + 32 + l);
                const vi q[4] = {(even & 15) | (high << 4 & 48), (odd & 15) | (high << 2 & 48), even >> 4 | (high & 48),
                                 odd >> 4 | (high >> 2 & 48)};
#pragma GCC unroll 4
                for (int g = 0; g < 4; ++g) {
                    const int at = 128 * half + 32 * g + l;
                    vf_store(y + at, times(q[g] - 32, scale, at / 16));
                }
            }
    }
}

const gt_codec GT_FN(gt_kquants_decode)[] = {
    {10, 256, 84, 0, NULL, q2_K_decode},  {11, 256, 110, 0, NULL, q3_K_decode}, {12, 256, 144, 0, NULL, q4_K_decode},
    {13, 256, 176, 0, NULL, q5_K_decode}, {14, 256, 210, 0, NULL, q6_K_decode}, {0},
};
