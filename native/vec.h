/* Vectors of floats at the native width of the instruction set this file is compiled for.
 *
 * VW lanes: 4 (SSE2, NEON), 8 (AVX2), 16 (AVX-512). Kernels put *candidates* in the lanes, a multiple of 16 of them,
 * numbered alike at every width; each lane then adds in the order of the scalar code and the bytes agree everywhere.
 * Sums across lanes go through sum16: sixteen partial sums and one fixed tree, whatever VW is.
 * Only IEEE basic operations are used: + - * / sqrt, comparisons, conversions; never a fused multiply-add.
 */
#ifndef GGUFTOOL_VEC_H
#define GGUFTOOL_VEC_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define VW 16
#elif defined(__AVX2__)
#define VW 8
#else
#define VW 4
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#endif

typedef float vf __attribute__((vector_size(4 * VW)));
typedef int32_t vi __attribute__((vector_size(4 * VW)));
#define GT_INLINE static inline __attribute__((always_inline, unused))

GT_INLINE vf vf_load(const float *p) { vf v; memcpy(&v, p, sizeof v); return v; }
GT_INLINE void vf_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
GT_INLINE vi vi_load(const int32_t *p) { vi v; memcpy(&v, p, sizeof v); return v; }
GT_INLINE void vi_store(int32_t *p, vi v) { memcpy(p, &v, sizeof v); }
GT_INLINE vf vf_set1(float x) { return x - (vf){0}; }
GT_INLINE vi vi_set1(int32_t x) { return x + (vi){0}; }

/* a < b ? a : b and a > b ? a : b, lane by lane: of equal operands, and of zeros of either sign, the second. */
#if VW == 16
GT_INLINE vf vf_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
GT_INLINE vf vf_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
GT_INLINE vf vf_sqrt(vf a) { return (vf)_mm512_sqrt_ps((__m512)a); }
#elif VW == 8
GT_INLINE vf vf_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
GT_INLINE vf vf_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
GT_INLINE vf vf_sqrt(vf a) { return (vf)_mm256_sqrt_ps((__m256)a); }
#elif defined(__SSE2__)
GT_INLINE vf vf_min(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
GT_INLINE vf vf_max(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
GT_INLINE vf vf_sqrt(vf a) { return (vf)_mm_sqrt_ps((__m128)a); }
#else
GT_INLINE vf vf_min(vf a, vf b) { vi m = a < b; return (vf)((m & (vi)a) | (~m & (vi)b)); }
GT_INLINE vf vf_max(vf a, vf b) { vi m = a > b; return (vf)((m & (vi)a) | (~m & (vi)b)); }
GT_INLINE vf vf_sqrt(vf a) { for (int i = 0; i < VW; ++i) a[i] = __builtin_sqrtf(a[i]); return a; }
#endif

/* m is a lane mask (0 or -1), as comparisons give it. */
GT_INLINE vf vf_select(vi m, vf a, vf b) { return (vf)((m & (vi)a) | (~m & (vi)b)); }
GT_INLINE vi vi_select(vi m, vi a, vi b) { return (m & a) | (~m & b); }
GT_INLINE vf vf_abs(vf a) { return (vf)((vi)a & 0x7fffffff); }

/* To the nearest integer, ties to even, for |x| < 2^22: the addition does the rounding. */
#define GT_MAGIC 12582912.0f
GT_INLINE vf vf_round(vf x) { return (x + GT_MAGIC) - GT_MAGIC; }
GT_INLINE float f_round(float x) { return (x + GT_MAGIC) - GT_MAGIC; }
GT_INLINE vi vi_round(vf x) { return (vi)(x + GT_MAGIC) - 0x4b400000; }
GT_INLINE int32_t i_round(float x) { float y = x + GT_MAGIC; int32_t i; memcpy(&i, &y, 4); return i - 0x4b400000; }

/* ((0+8)+(4+12)) + ... : the one order in which sixteen partial sums are added. */
GT_INLINE float sum16(const float p[16]) {
    float a[8], b[4];
    for (int i = 0; i < 8; ++i) a[i] = p[i] + p[i + 8];
    for (int i = 0; i < 4; ++i) b[i] = a[i] + a[i + 4];
    return (b[0] + b[2]) + (b[1] + b[3]);
}

/* One of eight numbers, or of sixteen, by the lowest bits of `at`; rows hold sixteen, aligned. */
GT_INLINE vf one_of_8(const float *row, vi at) {
#if VW == 16
    return (vf)_mm512_permutexvar_ps((__m512i)at, _mm512_load_ps(row));
#elif VW == 8
    return (vf)_mm256_permutevar8x32_ps(_mm256_load_ps(row), (__m256i)at);
#else
    vf v = {0};
    for (int k = 0; k < VW; ++k) v[k] = row[at[k] & 7];
    return v;
#endif
}

GT_INLINE vf one_of_16(const float *row, vi at) {
#if VW == 16
    return (vf)_mm512_permutexvar_ps((__m512i)at, _mm512_load_ps(row));
#elif VW == 8
    __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(row), (__m256i)at);
    __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(row + 8), (__m256i)at);
    return (vf)_mm256_blendv_ps(low, high, (__m256)(at << 28));
#else
    vf v = {0};
    for (int k = 0; k < VW; ++k) v[k] = row[at[k] & 15];
    return v;
#endif
}

GT_INLINE uint32_t f_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
GT_INLINE float f_from_bits(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

/* IEEE binary16, round to nearest even, subnormals kept; what overflows becomes the largest finite value, because a
 * scale must never be infinite. NaN cannot come in. */
GT_INLINE uint16_t f16_from_scale(float x) {
    uint32_t u = f_bits(x), sign = (u >> 16) & 0x8000, a = u & 0x7fffffff;
    if (a >= 0x477fefff + 1) return (uint16_t)(sign | 0x7bff);
    if (a >= 0x38800000) { /* normal */
        a += 0xfff + ((a >> 13) & 1);
        return (uint16_t)(sign | ((a - 0x38000000) >> 13));
    }
    float y = f_from_bits(a) + 0.5f; /* ulp of [0.5, 1) is 2^-24, the step of binary16's subnormals */
    return (uint16_t)(sign | (f_bits(y) - 0x3f000000));
}

GT_INLINE float f16_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = (h >> 10) & 31, m = h & 0x3ff;
    if (e == 31) return f_from_bits(sign | 0x7f800000 | (m << 13));
    if (e) return f_from_bits(sign | ((e + 112) << 23) | (m << 13));
    float y = (float)m * 0x1p-24f;
    return f_from_bits(sign | f_bits(y));
}

#endif
