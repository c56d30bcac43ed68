/* Decoders of the ik_llama.cpp types with scalar codebooks: super-blocks of 256, an integer scale and a bit that
 * shifts the codebook for every 16 (the K types) or 32 (KS, KSS) weights.
 *
 *   iq4_kss  row: f32 d. 128 bytes: words of 16 bits, the lowest a bit of the scale byte, 15 that are four codes
 *   iq4_ks   row: f32 d. 136: 8 scale bytes, 128 of nibbles
 *   iq5_ks   row: f32 d. 168: 8 scale bytes, 128 of nibbles, 32 of fifth bits
 *   iq4_k    144: f16 d, u16 shifts, 4 of scales' high bits, 8 of their low nibbles, 128 of nibbles
 *   iq5_k    176: as iq4_k, then 32 of fifth bits
 *   iq6_k    212: f16 d, u16 shifts, 16 signed scales, 128 of nibbles, 64 of high 2 bits
 *   iq3_k    110: f16 d, u16 shifts, u16 signs of scales, 8 of scales' nibbles, 64 of low 2 bits, 32 of third bits
 *   iq3_ks   row: f16 d. 102: u16 (scales' high bits, shifts), 4 of scales' nibbles, 64 and 32 as iq3_k
 *   iq2_k    76: f16 d, u16 shifts, 8 of scales' nibbles, 64 of 2-bit codes
 *   iq2_ks   row: f16 d. 70: u16 (shifts, scales' high bits), 4 of scales' nibbles, 64 of 2-bit codes
 *   iq2_kl   row: f16 d. 86: u16 of scales' high 2 bits, 4 of their nibbles, 64 of nibbles, 16 of fifth bits; a code
 *            is a pair of neighbours out of 32, and there is no shift
 *
 * The value is d * scale, rounded, times an integer of the codebook. So codes stay bytes until the end: 32 of them are
 * unpacked in one vector, looked up as bytes (a byte shuffle where there is one), and only then made floats. Scales and
 * shifts of a whole super-block are unpacked in vectors too.
 *
 * iq6_k has two decodes. This is the integer codebook, which the matrix kernels of ik_llama.cpp use and its quantizer
 * optimises; its to_float evaluates a polynomial close to it (decode's variant "poly", in gguftool/codecs/variants.py). */
#include "gguftool.h"
#include "bytes.h"
#include "ik_values.h"

#define SUPER 256

typedef uint8_t b16 __attribute__((vector_size(16)));
typedef uint8_t b32 __attribute__((vector_size(32)));
typedef uint16_t h16 __attribute__((vector_size(32)));

/* Eight bytes, then zeros. */
GT_INLINE b16 b16_load_8(const uint8_t *p) {
    typedef uint64_t words __attribute__((vector_size(16)));
    uint64_t low;
    memcpy(&low, p, 8);
    return (b16)(words){low, 0};
}

GT_INLINE b32 b32_load(const uint8_t *p) { b32 v; memcpy(&v, p, sizeof v); return v; }

/* Bits move over the edges of bytes here; every caller masks what it wants. */
GT_INLINE b32 shifted(b32 v, int right) {
    return right >= 0 ? (b32)((h16)v >> right) : (b32)((h16)v << -right);
}

/* table[code] for 32 codes below `size`, which is 16, 32 or 64. */
GT_INLINE b32 lookup(const int8_t *table, int size, b32 codes) {
#if VW >= 8
    __m256i c = (__m256i)codes, part[4];
    for (int k = 0; k < size / 16; ++k)
        part[k] = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(*(const __m128i *)(table + 16 * k)), c);
    if (size == 16) return (b32)part[0];
    const __m256i fifth = _mm256_slli_epi16(c, 3), sixth = _mm256_slli_epi16(c, 2);
    __m256i low = _mm256_blendv_epi8(part[0], part[1], fifth);
    if (size == 32) return (b32)low;
    return (b32)_mm256_blendv_epi8(low, _mm256_blendv_epi8(part[2], part[3], fifth), sixth);
#else
    uint8_t c[32];
    b32 values;
    (void)size;
    memcpy(c, &codes, 32);
#pragma GCC unroll 32
    for (int k = 0; k < 32; ++k) c[k] = (uint8_t)table[c[k]];
    memcpy(&values, c, 32);
    return values;
#endif
}

/* What a sub-block's values are multiplied with, and what is added to them before: sixteen of each, or eight. */
typedef struct {
    float scale[16], shift[16];
} factors;

/* Sixteen weights. */
GT_INLINE void put16(float *y, const int8_t *values, const factors *f, int sub) {
#pragma GCC unroll 4
    for (int k = 0; k < 16; k += VW)
        vf_store(y + k, (vf_from_int(vi_load_i8((const uint8_t *)values + k)) + f->shift[sub]) * f->scale[sub]);
}

/* 32 weights: one sub-block, or two. */
GT_INLINE void put32(float *y, b32 values, const factors *f, int first, int second) {
    int8_t v[32];
    memcpy(v, &values, 32);
    put16(y, v, f, first);
    put16(y + 16, v + 16, f, second);
}

/* ---- codes ---- */

/* Bit g of every byte, moved to bit `to`. */
GT_INLINE b32 one_bit(const uint8_t *in, int g, int to) { return shifted(b32_load(in), g - to) & (uint8_t)(1 << to); }
/* Codes of 32-block g, where four of them, or two, share 32 bytes. */
GT_INLINE b32 two_bits(const uint8_t *in, int g) { return shifted(b32_load(in + 32 * (g / 4)), 2 * (g % 4)) & 3; }
GT_INLINE b32 nibble(const uint8_t *in, int g) { return shifted(b32_load(in + 32 * (g / 2)), 4 * (g % 2)) & 15; }

/* Two 32-blocks of four-bit codes; byte j of a block's sixteen is elements j and j + 16. */
GT_INLINE void put_fours(float *y, b32 codes, const factors *f, const int sub[4]) {
    const b32 low = lookup(ik_values_4, 16, codes & 15), high = lookup(ik_values_4, 16, shifted(codes, 4) & 15);
    int8_t v[2][32];
    memcpy(v[0], &low, 32);
    memcpy(v[1], &high, 32);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) put16(y + 16 * k, v[k % 2] + 16 * (k / 2), f, sub[k]);
}

/* ---- scales ---- */

static const int32_t LANE[16] __attribute__((aligned(64))) = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* Field k, k + 1, ... of a word that holds 32 / width of them. */
GT_INLINE vi fields(uint32_t word, int width, int k) {
    const vi at = ((vi_load(LANE + k) * width) & 31);
    return (vi_set1((int32_t)word) >> at) & ((1 << width) - 1);
}

GT_INLINE void set_scales(factors *f, int k, float d, vi s) { vf_store(f->scale + k, vf_from_int(s) * d); }

/* The shift where a bit of sixteen is set, for sub-blocks k, k + 1, ... */
GT_INLINE void set_shifts(factors *f, int k, uint32_t bits, float shift) {
    vf_store(f->shift + k, vf_from_int(fields(bits, 1, k)) * shift);
}

/* Sixteen nibbles of eight bytes. */
GT_INLINE void sixteen_nibbles(const uint8_t *in, uint8_t out[16]) {
    const b16 both = b16_load_8(in), weave = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    const b16 v = __builtin_shuffle(both & 15, both >> 4, weave);
    memcpy(out, &v, 16);
}

/* Eight of four bytes: all low ones first. */
GT_INLINE void eight_nibbles(const uint8_t *in, uint8_t out[16]) {
    const uint32_t both = u32_load(in), low = both & 0x0f0f0f0f, high = both >> 4 & 0x0f0f0f0f;
    memset(out, 0, 16);
    memcpy(out, &low, 4);
    memcpy(out + 4, &high, 4);
}

/* iq4_ks, iq4_kss, iq5_ks: eight bytes, the lowest bit chooses the table, the rest is odd around 0. */
GT_INLINE void factors_of_bytes(factors *f, const uint8_t *in, float d, float shift) {
    for (int k = 0; k < 8; k += VW) {
        vi s = vi_load_u8(in + k);
        set_scales(f, k, d, (s & 254) - 127);
        vf_store(f->shift + k, vf_from_int(s & 1) * shift);
    }
}

/* iq4_k and iq5_k: the same header of sixteen bytes. */
GT_INLINE void factors_of_k(factors *f, const uint8_t *in, float shift) {
    const float d = f16_load(in);
    const uint32_t shifts = u16_load(in + 2), high = u32_load(in + 4);
    uint8_t low[16];
    sixteen_nibbles(in + 8, low);
    for (int k = 0; k < 16; k += VW) {
        set_scales(f, k, d, (vi_load_u8(low + k) | fields(high, 2, k) << 4) - 32);
        set_shifts(f, k, shifts, shift);
    }
}

/* ---- four bits and more ---- */

GT_INLINE float f32_load(const uint8_t *p) { return f_from_bits(u32_load(p)); }

static const int PER_32[4] = {0, 0, 1, 1}, PER_16[4] = {0, 1, 2, 3};

GT_INLINE void put_super_of_fours(float *y, const uint8_t *in, const factors *f, const int sub[4]) {
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
        const int step = g * (sub[3] + 1), at[4] = {step + sub[0], step + sub[1], step + sub[2], step + sub[3]};
        put_fours(y + 64 * g, b32_load(in + 32 * g), f, at);
    }
}

static void iq4_ks_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f32_load(in);
    in += 4;
    for (int64_t i = 0; i < n; i += SUPER, in += 136) {
        factors f;
        factors_of_bytes(&f, in, d, IK_SHIFT_4);
        put_super_of_fours(y + i, in + 8, &f, PER_32);
    }
}

/* The lowest bits of eight words of 16 bits. */
GT_INLINE uint8_t lowest_bits(const uint8_t *in) {
    uint64_t w[2];
    memcpy(w, in, 16);
    for (int k = 0; k < 2; ++k) w[k] = (w[k] & 0x0001000100010001) * 0x0001000200040008 >> 48 & 15;
    return (uint8_t)(w[0] | w[1] << 4);
}

/* What is left of a word is the inverse Gray code of its four codes, of which an even number of bits are set. */
static void iq4_kss_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f32_load(in);
    in += 4;
    for (int64_t i = 0; i < n; i += SUPER, in += 128) {
        factors f;
        uint8_t scales[16] = {0}, words[128];
#pragma GCC unroll 8
        for (int b = 0; b < 8; ++b) scales[b] = lowest_bits(in + 16 * b);
#pragma GCC unroll 4
        for (int k = 0; k < 128; k += 32) {
            const h16 v = (h16)b32_load(in + k) & 0xfffe, codes = v ^ v >> 1;
            memcpy(words + k, &codes, 32);
        }
        factors_of_bytes(&f, scales, d, IK_SHIFT_4);
        put_super_of_fours(y + i, words, &f, PER_32);
    }
}

static void iq4_k_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += SUPER, in += 144) {
        factors f;
        factors_of_k(&f, in, IK_SHIFT_4);
        put_super_of_fours(y + i, in + 16, &f, PER_16);
    }
}

GT_INLINE b32 fives(const uint8_t *low, const uint8_t *high, int g) {
    return lookup(ik_values_5, 32, nibble(low, g) | one_bit(high, g, 4));
}

static void iq5_k_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += SUPER, in += 176) {
        factors f;
        factors_of_k(&f, in, IK_SHIFT_5);
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g, y += 32) put32(y, fives(in + 16, in + 144, g), &f, 2 * g, 2 * g + 1);
    }
}

static void iq5_ks_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f32_load(in);
    in += 4;
    for (int64_t i = 0; i < n; i += SUPER, in += 168) {
        factors f;
        factors_of_bytes(&f, in, d, IK_SHIFT_5);
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g, y += 32) put32(y, fives(in + 8, in + 136, g), &f, g, g);
    }
}

static void iq6_k_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += SUPER, in += 212) {
        const float d = f16_load(in);
        const uint32_t shifts = u16_load(in + 2);
        factors f;
        for (int k = 0; k < 16; k += VW) {
            set_scales(&f, k, d, vi_load_i8(in + 4 + k));
            set_shifts(&f, k, shifts, IK_SHIFT_6);
        }
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g, y += 32) {
            const b32 high = shifted(b32_load(in + 148 + 32 * (g / 4)), 2 * (g % 4) - 4) & 48;
            put32(y, lookup(ik_values_6, 64, nibble(in + 20, g) | high), &f, 2 * g, 2 * g + 1);
        }
    }
}

/* ---- three bits and fewer ---- */

GT_INLINE b32 threes(const uint8_t *low, const uint8_t *high, int g) {
    return lookup(ik_values_3, 16, two_bits(low, g) | one_bit(high, g, 2));
}

static void iq3_k_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += SUPER, in += 110) {
        const float d = f16_load(in);
        const uint32_t shifts = u16_load(in + 2), signs = u16_load(in + 4);
        uint8_t codes[16];
        factors f;
        sixteen_nibbles(in + 6, codes);
        for (int k = 0; k < 16; k += VW) {
            const vi minus = -fields(signs, 1, k), s = vi_load_u8(codes + k) * 2 + 1;
            set_scales(&f, k, d, (s ^ minus) - minus);
            set_shifts(&f, k, shifts, IK_SHIFT_3);
        }
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g, y += 32) put32(y, threes(in + 14, in + 78, g), &f, 2 * g, 2 * g + 1);
    }
}

static void iq3_ks_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f16_load(in);
    in += 2;
    for (int64_t i = 0; i < n; i += SUPER, in += 102) {
        const uint32_t extra = u16_load(in);
        uint8_t codes[16];
        factors f;
        eight_nibbles(in + 2, codes);
        for (int k = 0; k < 8; k += VW) {
            set_scales(&f, k, d, (vi_load_u8(codes + k) | fields(extra, 1, k) << 4) - 16);
            set_shifts(&f, k, extra >> 8, IK_SHIFT_3);
        }
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g, y += 32) put32(y, threes(in + 6, in + 70, g), &f, g, g);
    }
}

static void iq2_k_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += SUPER, in += 76) {
        const float d = f16_load(in);
        const uint32_t shifts = u16_load(in + 2);
        uint8_t codes[16];
        factors f;
        sixteen_nibbles(in + 4, codes);
        for (int k = 0; k < 16; k += VW) {
            set_scales(&f, k, d, vi_load_u8(codes + k) - 8);
            set_shifts(&f, k, shifts, IK_SHIFT_2);
        }
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g, y += 32)
            put32(y, lookup(ik_values_2, 16, two_bits(in + 12, g)), &f, 2 * g, 2 * g + 1);
    }
}

/* Beware: next to iq3_ks the halves of the word are swapped, and the nibbles of scales lie side by side. */
static void iq2_ks_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f16_load(in);
    in += 2;
    for (int64_t i = 0; i < n; i += SUPER, in += 70) {
        const uint32_t extra = u16_load(in), low = u32_load(in + 2);
        factors f;
        for (int k = 0; k < 8; k += VW) {
            set_scales(&f, k, d, (fields(low, 4, k) | fields(extra >> 8, 1, k) << 4) - 16);
            set_shifts(&f, k, extra, IK_SHIFT_2);
        }
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g, y += 32) put32(y, lookup(ik_values_2, 16, two_bits(in + 6, g)), &f, g, g);
    }
}

/* Two blocks of sixteen pairs at a time: the first block in the low half of the vectors, the second in the high. */
GT_INLINE void put_pairs(float *y, const uint8_t *low, b16 high, int g, const factors *f) {
    const b16 both = *(const b16 *)memcpy(&(b16){0}, low, 16);
    const b16 one = (both & 15) | ((high >> g & 1) << 4), two = both >> 4 | ((high >> (g + 1) & 1) << 4);
    b32 codes;
    int8_t v[2][32];
    memcpy(&codes, &one, 16);
    memcpy((uint8_t *)&codes + 16, &two, 16);
    for (int k = 0; k < 2; ++k) {
        const b32 values = lookup(ik_values_kl[k], 32, codes);
        memcpy(v[k], &values, 32);
    }
    const b16 weave[2] = {{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23},
                          {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31}};
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
        b16 first, second, woven;
        memcpy(&first, v[0] + 16 * (k / 2), 16);
        memcpy(&second, v[1] + 16 * (k / 2), 16);
        woven = __builtin_shuffle(first, second, weave[k % 2]);
        put16(y + 16 * k, (const int8_t *)&woven, f, g + k / 2);
    }
}

static void iq2_kl_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f16_load(in);
    in += 2;
    for (int64_t i = 0; i < n; i += SUPER, in += 86, y += SUPER) {
        const uint32_t high = u16_load(in);
        uint8_t codes[16];
        factors f = {.shift = {0}};
        b16 fifth;
        memcpy(&fifth, in + 70, 16);
        eight_nibbles(in + 2, codes);
        for (int k = 0; k < 8; k += VW) set_scales(&f, k, d, (vi_load_u8(codes + k) | fields(high, 2, k) << 4) - 32);
#pragma GCC unroll 4
        for (int g = 0; g < 8; g += 2) put_pairs(y + 32 * g, in + 6 + 8 * g, fifth, g, &f);
    }
}

const gt_codec GT_FN(gt_ik_decode)[] = {
    {137, SUPER, 76, 0, NULL, iq2_k_decode},   {138, SUPER, 110, 0, NULL, iq3_k_decode},
    {139, SUPER, 144, 0, NULL, iq4_k_decode},  {140, SUPER, 176, 0, NULL, iq5_k_decode},
    {141, SUPER, 212, 0, NULL, iq6_k_decode},  {144, SUPER, 136, 4, NULL, iq4_ks_decode},
    {145, SUPER, 70, 2, NULL, iq2_ks_decode},  {146, SUPER, 128, 4, NULL, iq4_kss_decode},
    {152, SUPER, 168, 4, NULL, iq5_ks_decode}, {156, SUPER, 102, 2, NULL, iq3_ks_decode},
    {157, SUPER, 86, 2, NULL, iq2_kl_decode},  {0},
};
