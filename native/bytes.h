/* Between the bytes of blocks and vectors of integers or floats. */
#ifndef GGUFTOOL_BYTES_H
#define GGUFTOOL_BYTES_H

#include "vec.h"

#define GT_NV(n) ((n) / VW) /* vectors in n elements */

GT_INLINE vf vf_from_int(vi v) { return __builtin_convertvector(v, vf); }
GT_INLINE vi vi_trunc(vf v) { return __builtin_convertvector(v, vi); }

GT_INLINE uint16_t u16_load(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
GT_INLINE uint32_t u32_load(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
GT_INLINE void u16_store(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }
GT_INLINE void u32_store(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
GT_INLINE float f16_load(const uint8_t *p) { return f16_to_float(u16_load(p)); }

/* VW bytes, unsigned or signed. */
GT_INLINE vi vi_load_u8(const uint8_t *p) {
#if VW == 16
    return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif VW == 8
    return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
#elif defined(__SSE2__)
    __m128i zero = _mm_setzero_si128(), v = _mm_cvtsi32_si128((int32_t)u32_load(p));
    return (vi)_mm_unpacklo_epi16(_mm_unpacklo_epi8(v, zero), zero);
#else
    typedef uint8_t vb __attribute__((vector_size(VW)));
    vb b;
    memcpy(&b, p, sizeof b);
    return __builtin_convertvector(b, vi);
#endif
}

GT_INLINE vi vi_load_i8(const uint8_t *p) {
#if VW == 16
    return (vi)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
#elif VW == 8
    return (vi)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
#elif defined(__SSE2__)
    __m128i v = _mm_cvtsi32_si128((int32_t)u32_load(p));
    v = _mm_unpacklo_epi8(v, v);
    return (vi)_mm_srai_epi32(_mm_unpacklo_epi16(v, v), 24);
#else
    typedef int8_t vb __attribute__((vector_size(VW)));
    vb b;
    memcpy(&b, p, sizeof b);
    return __builtin_convertvector(b, vi);
#endif
}

/* VW 16-bit values. */
GT_INLINE vi vi_load_u16(const uint8_t *p) {
#if VW == 16
    return (vi)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
#elif VW == 8
    return (vi)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
#elif defined(__SSE2__)
    return (vi)_mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i *)p), _mm_setzero_si128());
#else
    typedef uint16_t vh __attribute__((vector_size(2 * VW)));
    vh h;
    memcpy(&h, p, sizeof h);
    return __builtin_convertvector(h, vi);
#endif
}

/* 2 VW integers of 0..65535 as 16-bit values. */
GT_INLINE void vi_store_u16x2(uint8_t *p, vi a, vi b) {
#if VW == 16
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16((__m512i)a));
    _mm256_storeu_si256((__m256i *)(p + 32), _mm512_cvtepi32_epi16((__m512i)b));
#elif VW == 8
    __m256i packed = _mm256_packus_epi32((__m256i)a, (__m256i)b);
    _mm256_storeu_si256((__m256i *)p, _mm256_permute4x64_epi64(packed, 0xd8));
#elif defined(__SSE2__)
    __m128i low = _mm_srai_epi32(_mm_slli_epi32((__m128i)a, 16), 16); /* so that packing with saturation keeps it */
    __m128i high = _mm_srai_epi32(_mm_slli_epi32((__m128i)b, 16), 16);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi32(low, high));
#else
    typedef uint16_t vh __attribute__((vector_size(2 * VW)));
    vh low = __builtin_convertvector(a, vh), high = __builtin_convertvector(b, vh);
    memcpy(p, &low, sizeof low);
    memcpy(p + sizeof low, &high, sizeof high);
#endif
}

/* 32 integers of -128..127 as bytes. */
GT_INLINE void vi_store_bytes32(uint8_t *p, const vi v[GT_NV(32)]) {
#if VW == 16
    for (int k = 0; k < 2; ++k) _mm_storeu_si128((__m128i *)(p + 16 * k), _mm512_cvtepi32_epi8((__m512i)v[k]));
#elif VW == 8
    __m256i a = _mm256_packs_epi32((__m256i)v[0], (__m256i)v[1]), b = _mm256_packs_epi32((__m256i)v[2], (__m256i)v[3]);
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i *)p, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order));
#elif defined(__SSE2__)
    for (int k = 0; k < 2; ++k) {
        __m128i a = _mm_packs_epi32((__m128i)v[4 * k], (__m128i)v[4 * k + 1]);
        __m128i b = _mm_packs_epi32((__m128i)v[4 * k + 2], (__m128i)v[4 * k + 3]);
        _mm_storeu_si128((__m128i *)(p + 16 * k), _mm_packs_epi16(a, b));
    }
#else
    typedef int8_t vb __attribute__((vector_size(VW)));
    for (int k = 0; k < GT_NV(32); ++k) {
        vb b = __builtin_convertvector(v[k], vb);
        memcpy(p + k * VW, &b, sizeof b);
    }
#endif
}

/* The largest and the smallest of n floats, n a multiple of VW: exact, whatever the order. */
GT_INLINE float vf_max_of(vf m) {
    float p[VW], best;
    vf_store(p, m);
    best = p[0];
    for (int k = 1; k < VW; ++k) best = p[k] > best ? p[k] : best;
    return best;
}
GT_INLINE float vf_min_of(vf m) {
    float p[VW], best;
    vf_store(p, m);
    best = p[0];
    for (int k = 1; k < VW; ++k) best = p[k] < best ? p[k] : best;
    return best;
}
#endif
