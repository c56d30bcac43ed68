/* What the types share whose reference takes the largest magnitude for the scale: TQ1_0, TQ2_0 and Q2_0. */
#ifndef GGUFTOOL_SCALE_BY_LARGEST_H
#define GGUFTOOL_SCALE_BY_LARGEST_H

#include "symmetric_search.h"

#define F16_MAX 65504.0f

GT_INLINE float largest_of(const float *x, int n) {
    vf m = {0};
    for (int i = 0; i < n; i += VW) m = vf_max(m, vf_abs(vf_load(x + i)));
    return vf_max_of(m);
}

GT_INLINE int any_lane(vi mask) {
    uint64_t parts[sizeof mask / 8], all = 0;
    memcpy(parts, &mask, sizeof mask);
    for (size_t k = 0; k < sizeof mask / 8; ++k) all |= parts[k];
    return all != 0;
}

/* 1 / d; 0 for 0, and where it would be infinite: the reference's conversion of infinity gives 0 on x86. */
GT_INLINE float inverse_or_zero(float d) {
    float inverse = d != 0.0f ? 1.0f / d : 0.0f;
    return inverse > __FLT_MAX__ || inverse < -__FLT_MAX__ ? 0.0f : inverse;
}

/* Rounds with the largest magnitude for d; where binary16 ends, magnitudes are first cut to its largest value. */
GT_INLINE void put_capped(const float *x, int n, float largest, void (*put)(const float *, float, float, uint8_t *),
                          uint8_t *out) {
    float cut[256];
    if (__builtin_expect(largest >= 65520.0f, 0)) {
        for (int i = 0; i < n; ++i) cut[i] = x[i] < -F16_MAX ? -F16_MAX : x[i] > F16_MAX ? F16_MAX : x[i];
        x = cut;
        largest = F16_MAX;
    }
    put(x, largest, inverse_or_zero(largest), out);
}

/* sum + v where a >= least. */
GT_INLINE vf add_above(vf sum, vf a, vf least, vf v) {
#if VW == 16
    return (vf)_mm512_mask_add_ps((__m512)sum, _mm512_cmp_ps_mask((__m512)a, (__m512)least, _CMP_GE_OQ), (__m512)sum,
                                  (__m512)v);
#else
    return sum + (vf)((vi)v & (a >= least));
#endif
}

#endif
