/* Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: blocks of 32 with one f16 scale, and one f16 minimum in the _1 types.
 *
 *   q4_0  d, 16 bytes of nibbles               x = (q - 8) * d      low nibbles hold elements 0..15, high ones 16..31
 *   q4_1  d, m, 16 bytes of nibbles            x = q * d + m
 *   q5_0  d, 32 fifth bits, 16 bytes           x = (q - 16) * d     bit i of the fifth bits belongs to element i
 *   q5_1  d, m, 32 fifth bits, 16 bytes        x = q * d + m
 *   q8_0  d, 32 signed bytes                   x = q * d
 *
 * Without weights the encoders are closed forms, the reference's to the byte: q8_0 scales the largest magnitude to
 * 127 and rounds halves away from zero; q4_0 and q5_0 put the first element of the largest magnitude on the lowest
 * level (the only one without a mirror image); the _1 types span minimum to maximum. Codes are chosen with the
 * unrounded scale. Two cases go beyond: where the scale would be infinite as f16, the values are first cut to what the
 * largest finite scale reaches; where it is so small that its inverse is infinite, the codes are 0, as the
 * reference's conversion of infinity gives on x86. */
#include "gguftool.h"
#include "bytes.h"

#define N 32
#define NV GT_NV(N)
#define F16_MAX 65504.0f

GT_INLINE int too_large(float d) { return (f_bits(d) & 0x7fffffff) >= 0x477ff000; } /* 65520 becomes infinite */

typedef struct {
    float min, max; /* of zeros of both signs, the first */
} range;

GT_INLINE range range_of(const float *x) {
    vf lo = vf_load(x), hi = lo;
    for (int k = 1; k < NV; ++k) {
        lo = vf_min(lo, vf_load(x + k * VW));
        hi = vf_max(hi, vf_load(x + k * VW));
    }
    return (range){vf_min_of(lo), vf_max_of(hi)};
}

/* x[i] cut to [lo, hi]. */
static void cut(const float *x, float lo, float hi, float *out) {
    for (int i = 0; i < N; ++i) out[i] = x[i] < lo ? lo : x[i] > hi ? hi : x[i];
}

/* ---- q8_0 ---- */

GT_INLINE void q8_0_block(const float *x, uint8_t *out) {
    float buffer[N], inverse, d;
    vf top = vf_abs(vf_load(x));
    for (int k = 1; k < NV; ++k) top = vf_max(top, vf_abs(vf_load(x + k * VW)));
    d = vf_max_of(top) / 127.0f;
    if (__builtin_expect(too_large(d), 0)) {
        cut(x, -127 * F16_MAX, 127 * F16_MAX, buffer);
        x = buffer;
        d = F16_MAX;
    }
    inverse = d != 0.0f ? 1.0f / d : 0.0f;
    u16_store(out, f16_from_scale(d));
    if (__builtin_expect(inverse > __FLT_MAX__, 0)) {
        memset(out + 2, 0, N);
        return;
    }
    vi code[NV];
    for (int k = 0; k < NV; ++k) {
        vf v = vf_load(x + k * VW) * inverse;
        vi whole = vi_trunc(v);
        vf rest = v - vf_from_int(whole); /* exact */
        code[k] = whole - (rest >= 0.5f) + (rest <= -0.5f);
    }
    vi_store_bytes32(out + 2, code);
}

static void q8_0_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    (void)w, (void)opt;
    for (int64_t i = 0; i < n; i += N, out += 34) q8_0_block(x + i, out);
}

static void q8_0_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += N, in += 34) {
        vf d = vf_set1(f16_load(in));
        for (int k = 0; k < NV; ++k) vf_store(y + i + k * VW, vf_from_int(vi_load_i8(in + 2 + k * VW)) * d);
    }
}

/* ---- the four and five bit types ---- */

typedef uint8_t bytes16 __attribute__((vector_size(16)));

GT_INLINE void pack_nibbles(const uint8_t code[N], uint8_t *out) {
    bytes16 lo, hi;
    memcpy(&lo, code, 16);
    memcpy(&hi, code + 16, 16);
    lo = (lo & 15) | (hi << 4);
    memcpy(out, &lo, 16);
}

/* Bit 4 of each code, bit i for element i. */
GT_INLINE uint32_t fifth_bits(const uint8_t code[N]) {
#if defined(__SSE2__)
    __m128i lo = _mm_slli_epi16(_mm_loadu_si128((const __m128i *)code), 3);
    __m128i hi = _mm_slli_epi16(_mm_loadu_si128((const __m128i *)(code + 16)), 3);
    return (uint32_t)_mm_movemask_epi8(lo) | (uint32_t)_mm_movemask_epi8(hi) << 16;
#else
    uint32_t bits = 0;
    for (int i = 0; i < N; ++i) bits |= (uint32_t)(code[i] >> 4 & 1) << i;
    return bits;
#endif
}

/* Codes 0..levels-1 of (x - origin) * inverse + half, written behind the scales. */
GT_INLINE void put_codes(const float *x, float origin, float inverse, float half, int levels, uint8_t *out) {
    uint8_t code[N];
    vi v[NV];
    const vf top = vf_set1((float)levels - 0.5f);
    for (int k = 0; k < NV; ++k) v[k] = vi_trunc(vf_min((vf_load(x + k * VW) - origin) * inverse + half, top));
    vi_store_bytes32(code, v);
    if (__builtin_expect(inverse > __FLT_MAX__ || inverse < -__FLT_MAX__, 0)) memset(code, 0, N);
    if (levels == 32) {
        u32_store(out, fifth_bits(code));
        out += 4;
    }
    pack_nibbles(code, out);
}

/* The value of the largest magnitude, the first of several. */
GT_INLINE float signed_max(const float *x) {
    range r = range_of(x);
    if (r.max > -r.min) return r.max;
    if (r.max < -r.min) return r.min;
    if (r.max == 0.0f) return 0.0f;
    for (int i = 0;; ++i)
        if (x[i] == r.max || x[i] == r.min) return x[i];
}

GT_INLINE void symmetric_block(const float *x, int levels, uint8_t *out) {
    const int low = levels / 2;
    float buffer[N], d = signed_max(x) / (float)-low;
    if (__builtin_expect(too_large(d), 0)) {
        cut(x, (float)-low * F16_MAX, (float)low * F16_MAX, buffer);
        x = buffer;
        d = signed_max(x) / (float)-low;
    }
    u16_store(out, f16_from_scale(d));
    put_codes(x, 0.0f, d != 0.0f ? 1.0f / d : 0.0f, (float)low + 0.5f, levels, out + 2);
}

GT_INLINE void affine_block(const float *x, int levels, uint8_t *out) {
    float buffer[N];
    range r = range_of(x);
    if (r.min == 0.0f) {
        int i = 0;
        while (x[i] != 0.0f) ++i;
        r.min = x[i];
        if (r.max == 0.0f) r.max = r.min;
    }
    float d = (r.max - r.min) / (float)(levels - 1);
    if (__builtin_expect(too_large(d) || too_large(r.min), 0)) {
        r.min = r.min < -F16_MAX ? -F16_MAX : r.min > F16_MAX ? F16_MAX : r.min;
        cut(x, r.min, r.min + (float)(levels - 1) * F16_MAX, buffer);
        x = buffer;
        d = (range_of(x).max - r.min) / (float)(levels - 1);
    }
    u16_store(out, f16_from_scale(d));
    u16_store(out + 2, f16_from_scale(r.min));
    put_codes(x, r.min, d != 0.0f ? 1.0f / d : 0.0f, 0.5f, levels, out + 4);
}

#define GT_LEGACY(type, closed, levels, size)                                                                      \
    static void type##_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {    \
        if (w) {                                                                                                   \
            GT_FN(gt_search_##type)(x, w, n, out, opt);                                                            \
            return;                                                                                                \
        }                                                                                                          \
        for (int64_t i = 0; i < n; i += N, out += size) closed(x + i, levels, out);                                \
    }
GT_LEGACY(q4_0, symmetric_block, 16, 18)
GT_LEGACY(q5_0, symmetric_block, 32, 22)
GT_LEGACY(q4_1, affine_block, 16, 20)
GT_LEGACY(q5_1, affine_block, 32, 24)

/* Vector k of a block's codes: VW nibbles, and the fifth bits if there are any. */
GT_INLINE vi codes_at(const uint8_t *nibbles, uint32_t fifth, int five, int k) {
    vi q = vi_load_u8(nibbles + k * VW % 16);
    q = k * VW < 16 ? q & 15 : q >> 4;
    if (five) {
        vi bit;
        for (int i = 0; i < VW; ++i) bit[i] = (int32_t)(1u << (k * VW + i));
        q |= ((vi_set1((int32_t)fifth) & bit) != 0) & 16;
    }
    return q;
}

GT_INLINE void decode_rows(const uint8_t *in, int64_t n, float *y, int size, int five, int affine) {
    const int head = affine ? 4 : 2, nibbles = head + (five ? 4 : 0), zero = five ? 16 : 8;
    for (int64_t i = 0; i < n; i += N, in += size) {
        vf d = vf_set1(f16_load(in)), m = vf_set1(affine ? f16_load(in + 2) : 0.0f);
        uint32_t fifth = five ? u32_load(in + head) : 0;
#pragma GCC unroll 8
        for (int k = 0; k < NV; ++k) {
            vi q = codes_at(in + nibbles, fifth, five, k);
            vf_store(y + i + k * VW, affine ? vf_from_int(q) * d + m : vf_from_int(q - zero) * d);
        }
    }
}

static void q4_0_decode(const uint8_t *in, int64_t n, float *y) { decode_rows(in, n, y, 18, 0, 0); }
static void q4_1_decode(const uint8_t *in, int64_t n, float *y) { decode_rows(in, n, y, 20, 0, 1); }
static void q5_0_decode(const uint8_t *in, int64_t n, float *y) { decode_rows(in, n, y, 22, 1, 0); }
static void q5_1_decode(const uint8_t *in, int64_t n, float *y) { decode_rows(in, n, y, 24, 1, 1); }

const gt_codec GT_FN(gt_legacy)[] = {
    {2, N, 18, 0, q4_0_encode, q4_0_decode}, {3, N, 20, 0, q4_1_encode, q4_1_decode},
    {6, N, 22, 0, q5_0_encode, q5_0_decode}, {7, N, 24, 0, q5_1_encode, q5_1_decode},
    {8, N, 34, 0, q8_0_encode, q8_0_decode}, {0},
};
