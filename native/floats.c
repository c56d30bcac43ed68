/* F32, F16 and BF16: values without blocks.
 *
 * Both 16-bit formats round to nearest even and keep subnormals; whatever would round to infinity is refused before
 * it gets here. F16C and AVX-512 convert binary16 in hardware; the others do it in integers, and for subnormals let
 * an addition do the rounding: in [0.5, 1) the last bit of a float weighs 2^-24, the step of binary16's subnormals. */
#include "gguftool.h"
#include "bytes.h"

static void copy_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    (void)w, (void)opt;
    memcpy(out, x, (size_t)n * sizeof(float));
}

static void copy_decode(const uint8_t *in, int64_t n, float *y) { memcpy(y, in, (size_t)n * sizeof(float)); }

GT_INLINE uint16_t half_from_float(float x) {
    uint32_t u = f_bits(x), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
    uint32_t normal = (a - 0x38000000 + 0xfff + ((a >> 13) & 1)) >> 13;
    uint32_t small = f_bits(f_from_bits(a) + 0.5f) - 0x3f000000;
    return (uint16_t)(sign | (a < 0x38800000 ? small : normal));
}

/* 2 VW floats as binary16. */
GT_INLINE void store_halves(uint8_t *out, vf x, vf y) {
#if VW == 16
    _mm256_storeu_si256((__m256i *)out, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
    _mm256_storeu_si256((__m256i *)(out + 32), _mm512_cvtps_ph((__m512)y, _MM_FROUND_TO_NEAREST_INT));
#elif VW == 8
    _mm_storeu_si128((__m128i *)out, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(out + 16), _mm256_cvtps_ph((__m256)y, _MM_FROUND_TO_NEAREST_INT));
#else
    vi bits[2] = {(vi)x, (vi)y};
    for (int k = 0; k < 2; ++k) {
        vi u = bits[k], a = u & 0x7fffffff, sign = (u >> 16) & 0x8000;
        vi normal = (a - (0x38000000 - 0xfff) + ((a >> 13) & 1)) >> 13;
        vi small = (vi)((vf)a + 0.5f) - 0x3f000000;
        bits[k] = sign | vi_select(a < 0x38800000, small, normal);
    }
    vi_store_u16x2(out, bits[0], bits[1]);
#endif
}

GT_INLINE vf load_half(const uint8_t *in) {
#if VW == 16
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)in));
#elif VW == 8
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)in));
#else
    vi h = vi_load_u16(in), a = h & 0x7fff, sign = (h ^ a) << 16;
    vi normal = (a << 13) + 0x38000000 + ((a >= 0x7c00) & 0x38000000);
    vi small = (vi)((vf)(a + 0x3f000000) - 0.5f);
    return (vf)(sign | vi_select(a < 0x400, small, normal));
#endif
}

static void f16_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    (void)w, (void)opt;
    int64_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) store_halves(out + 2 * i, vf_load(x + i), vf_load(x + i + VW));
    for (; i < n; ++i) u16_store(out + 2 * i, half_from_float(x[i]));
}

static void f16_decode(const uint8_t *in, int64_t n, float *y) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vf_store(y + i, load_half(in + 2 * i));
    for (; i < n; ++i) y[i] = f16_load(in + 2 * i);
}

GT_INLINE uint32_t bf16_bits(uint32_t u) { return (u + 0x7fff + ((u >> 16) & 1)) >> 16; }
GT_INLINE vi bf16_at(const float *x) {
    vi u = vi_load((const int32_t *)x);
    return ((u + 0x7fff + ((u >> 16) & 1)) >> 16) & 0xffff;
}

static void bf16_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    (void)w, (void)opt;
    int64_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) vi_store_u16x2(out + 2 * i, bf16_at(x + i), bf16_at(x + i + VW));
    for (; i < n; ++i) u16_store(out + 2 * i, (uint16_t)bf16_bits(f_bits(x[i])));
}

static void bf16_decode(const uint8_t *in, int64_t n, float *y) {
    int64_t i = 0;
#if defined(__SSE2__) && VW == 4
    for (; i + 8 <= n; i += 8) { /* one load for two vectors */
        __m128i h = _mm_loadu_si128((const __m128i *)(in + 2 * i)), zero = _mm_setzero_si128();
        _mm_storeu_si128((__m128i *)(y + i), _mm_unpacklo_epi16(zero, h));
        _mm_storeu_si128((__m128i *)(y + i + 4), _mm_unpackhi_epi16(zero, h));
    }
#endif
    for (; i + VW <= n; i += VW) vf_store(y + i, (vf)(vi_load_u16(in + 2 * i) << 16));
    for (; i < n; ++i) y[i] = f_from_bits((uint32_t)u16_load(in + 2 * i) << 16);
}

const gt_codec GT_FN(gt_floats)[] = {
    {0, 1, 4, 0, copy_encode, copy_decode},
    {1, 1, 2, 0, f16_encode, f16_decode},
    {30, 1, 2, 0, bf16_encode, bf16_decode},
    {0},
};
