/* Sixteen sub-blocks side by side: what both searches need to bring them into the lanes and to the same size. */
#ifndef GGUFTOOL_LANES_H
#define GGUFTOOL_LANES_H

#include "vec.h"

#define LANES 16

#define TINY_WEIGHT 0x1p-60f   /* the least weight: no sum of weights is zero */
#define LEAST_SCALE 0x1p-24f   /* binary16's smallest positive value */
#define LARGEST_SCALE 65504.0f /* and its largest finite one */

/* No scale reaches further than 2^28; magnitudes beyond this are cut to it, so that no square overflows. */
#define FAR 0x1p30f
GT_INLINE vf within_far(vf v) { return vf_min(vf_max(v, vf_set1(-FAR)), vf_set1(FAR)); }

/* out[i * LANES + j] = in[j * stride + i] for LANES rows of n elements, n a multiple of 4. */
GT_INLINE void transpose(const float *in, int stride, int n, float *out) {
#if defined(__SSE2__)
    for (int i = 0; i < n; i += 4)
        for (int j = 0; j < LANES; j += 4) {
            const float *p = in + j * stride + i;
            __m128 a = _mm_loadu_ps(p), b = _mm_loadu_ps(p + stride);
            __m128 c = _mm_loadu_ps(p + 2 * stride), d = _mm_loadu_ps(p + 3 * stride);
            _MM_TRANSPOSE4_PS(a, b, c, d);
            float *q = out + i * LANES + j;
            _mm_store_ps(q, a);
            _mm_store_ps(q + LANES, b);
            _mm_store_ps(q + 2 * LANES, c);
            _mm_store_ps(q + 3 * LANES, d);
        }
#else
    for (int j = 0; j < LANES; ++j)
        for (int i = 0; i < n; ++i) out[i * LANES + j] = in[j * stride + i];
#endif
}

/* 2^k with k the exponent of a >= 0, at least -26: smaller is nothing that a scale could express. */
GT_INLINE vf power_of_two_of(vf a) { return vf_max((vf)((vi)a & 0x7f800000), vf_set1(0x1p-26f)); }
GT_INLINE vf inverse_power(vf power) { return (vf)(vi_set1(254 << 23) - (vi)power); }

#endif
