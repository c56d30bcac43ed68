/* The best pair in the codebook of IQ2_KL, lane by lane.
 *
 * IQ2_KL stores two weights at once, as one of 32 pairs of IQ3_KS's eight values, so no value may be chosen for one
 * weight alone. For each first value a there are two to five second values b; the cost of a pair is
 * w0 (t0 - a)^2 + w1 (t1 - b)^2, so eight squares for either weight, for each a the least square among its b, and the
 * least of eight sums find the best of all 32. (In units of w1: only the ratio w0 / w1 is needed.) */
#ifndef GGUFTOOL_IQ2_KL_PAIRS_H
#define GGUFTOOL_IQ2_KL_PAIRS_H

#include "symmetric_search.h"

/* t >= least ? yes : no. */
GT_INLINE vf at_least(vf t, vf least, vf yes, vf no) {
#if VW == 16
    return (vf)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)t, (__m512)least, _CMP_GE_OQ), (__m512)no, (__m512)yes);
#elif VW == 8
    return (vf)_mm256_blendv_ps((__m256)no, (__m256)yes, _mm256_cmp_ps((__m256)t, (__m256)least, _CMP_GE_OQ));
#else
    return vf_select(t >= least, yes, no);
#endif
}

#define EIGHT_VALUES -63, -40, -23, -10, 1, 13, 28, 47
#define NEVER 0x1p120f
#define TWICE(...) {__VA_ARGS__, __VA_ARGS__}

/* For the eight first values, in order: the number of their first pair, their second values, and the middles between
 * these; twice, for the width of AVX-512. */
static const float FIRSTS[16] __attribute__((aligned(64))) = TWICE(EIGHT_VALUES);
static const float BEGINS[16] __attribute__((aligned(64))) = TWICE(0, 2, 6, 11, 15, 20, 25, 30);
static const float SECONDS[5][16] __attribute__((aligned(64))) = {
    TWICE(-23, -63, -40, -63, -23, -40, -63, -23), TWICE(13, -10, -23, 1, -10, -23, -23, 13),
    TWICE(13, 13, 1, 13, 1, -10, 1, 13), TWICE(13, 47, 13, 47, 13, 1, 28, 13), TWICE(13, 47, 28, 47, 28, 13, 47, 13)};
static const float SPLITS[4][16] __attribute__((aligned(64))) = {
    TWICE(-5.0f, -36.5f, -31.5f, -31.0f, -16.5f, -31.5f, -43.0f, -5.0f),
    TWICE(NEVER, 1.5f, -11.0f, 7.0f, -4.5f, -16.5f, -11.0f, NEVER),
    TWICE(NEVER, 30.0f, 7.0f, 30.0f, 7.0f, -4.5f, 14.5f, NEVER),
    TWICE(NEVER, NEVER, 20.5f, NEVER, 20.5f, 7.0f, 37.5f, NEVER)};

/* For each first value the least cost of its pairs, in units of the second weight; ratio = w0 / w1. */
GT_INLINE void costs_of_firsts(vf t0, vf t1, vf ratio, vf cost[8]) {
    static const float values[8] = {EIGHT_VALUES};
    vf s[8];
    for (int k = 0; k < 8; ++k) {
        vf e = t1 - values[k], f = t0 - values[k];
        s[k] = e * e;
        cost[k] = (f * f) * ratio;
    }
    vf middle = vf_min(s[2], s[5]), ends = vf_min(s[0], s[7]), upper = vf_min(s[4], s[6]);
    vf far = vf_min(ends, s[5]), most = vf_min(middle, upper);
    cost[0] += middle;
    cost[1] += vf_min(far, s[3]);
    cost[2] += vf_min(most, s[1]);
    cost[3] += vf_min(far, s[4]);
    cost[4] += vf_min(most, s[3]);
    cost[5] += vf_min(vf_min(middle, s[4]), vf_min(s[1], s[3]));
    cost[6] += vf_min(vf_min(ends, upper), s[2]);
    cost[7] += middle;
}

GT_INLINE vf cost_of_pair(vf t0, vf t1, vf ratio) {
    vf c[8];
    costs_of_firsts(t0, t1, ratio, c);
    return vf_min(vf_min(vf_min(c[0], c[1]), vf_min(c[2], c[3])), vf_min(vf_min(c[4], c[5]), vf_min(c[6], c[7])));
}

/* Which first value the best pair has: the costs' lowest three bits give way to its number. */
GT_INLINE vi first_of_pair(vf t0, vf t1, vf ratio) {
    vf c[8];
    vi tagged[8];
    costs_of_firsts(t0, t1, ratio, c);
    for (int k = 0; k < 8; ++k) tagged[k] = ((vi)c[k] & ~7) | k;
    for (int half = 4; half; half /= 2)
        for (int k = 0; k < half; ++k) tagged[k] = vi_min(tagged[k], tagged[k + half]);
    return tagged[0] & 7;
}

GT_INLINE vf second_of_pair(vi first, vf t1) {
    vf b = one_of_8(SECONDS[0], first);
    for (int k = 0; k < 4; ++k) b = at_least(t1, one_of_8(SPLITS[k], first), one_of_8(SECONDS[k + 1], first), b);
    return b;
}

#endif
