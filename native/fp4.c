/* MXFP4 and NVFP4: four-bit floats with a small float for a scale.
 *
 *   mxfp4  32 weights  e, 16 bytes of nibbles                 x = v[q] * 2^(e - 128)
 *   nvfp4  64 weights  4 scales c, 4 x 8 bytes of nibbles     x = v[q] * scale(c), for each 16 weights
 * v[q] is 0, 1, 2, 3, 4, 6, 8, 12 and, with the bit 8, their negatives; low nibbles come first. scale(c) is half of
 * what c is as a float of four exponent and three mantissa bits: (1 + m/8) 2^(E - 8), m 2^-10 where E is 0, and 0 for
 * 0x7f, which is never written, and neither is e = 255.
 *
 * The reference takes the exponent of the largest weight less 2 for e, so that what lies between 6 and 8 units is
 * clipped, and the nearest code of a sixth of the largest weight for c. It sees no importance. Effort fast is that.
 * Otherwise neighbours are tried: e + 1 and e - 1, or the codes from 4 below to 8 above, as good as all 126. Sixteen
 * scales are in the lanes with their weights below them, so a candidate's error needs no sum across lanes. In units of
 * the scale, t = |x| / d, the nearest v is t rounded to steps of 1, 2 or 4: a number of the right size is added and
 * subtracted again. Codes are chosen by comparing |x| with the midpoints, which are exact; ties go to the smaller
 * magnitude, as in the reference. With an importance the error is 0.93 of the reference's for mxfp4 and 0.68 for nvfp4,
 * without one 0.94 and 0.81; best, with e - 2 and e + 2 or all codes, gains nothing more on real rows. Even so mxfp4
 * takes a quarter and nvfp4 a ninth of the reference's time.
 *
 * The reference's e is floor(log2f(largest)) - 2 + 127, cut to eight bits. log2f gives the integer k already for a
 * largest weight up to ln 2 * M * 2^-24 below 2^k, relatively, where M is the power of two in |k|, or in k - 1 for
 * positive k; it holds at every exponent. Two of its values are not taken over: 255, for a largest weight in
 * [2^-126, 2^-125), which readers refuse, and 253, just below 2^128, which decodes to infinity. Below 2^-126 e wraps
 * around to values under which everything is 0. And nvfp4's weights beyond 2^30 are as far from every level as float32
 * can tell, so that the first one, 0, wins.
 */
#include "bytes.h"
#include "gguftool.h"
#include "lanes.h"

#define MX 32 /* weights to a scale */
#define NV 16
#define TOP_E 252    /* the largest exponent under which all levels are finite */
#define TOP_CODE 126 /* 0x7f is not a number */

/* Sixteen scales with the weights of each below it: row i holds element i. */
typedef struct {
    float x[MX * LANES], w[MX * LANES];
    float d[LANES];      /* the scale, in the units of x */
    int32_t code[LANES]; /* the byte to store */
} __attribute__((aligned(64))) tile;

/* ---- rounding with given scales ---- */

typedef struct {
    vf least[7]; /* magnitudes above least[q] become v[q + 1] or more */
} midpoints;

GT_INLINE midpoints midpoints_of(vf d) {
    static const float between[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5.0f, 7.0f, 10.0f};
    midpoints m;
    d = vf_select(d > vf_set1(0.0f), d, vf_set1(__builtin_inff())); /* all codes 0 */
    for (int q = 0; q < 7; ++q) m.least[q] = d * between[q];
    return m;
}

/* q, and one more where a > least. */
GT_INLINE vi count_above(vi q, vf a, vf least) {
#if VW == 16
    __mmask16 above = _mm512_cmp_ps_mask((__m512)a, (__m512)least, _CMP_GT_OQ);
    return (vi)_mm512_mask_add_epi32((__m512i)q, above, (__m512i)q, _mm512_set1_epi32(1));
#else
    return q - (a > least);
#endif
}

/* The nibbles of the levels nearest to x. */
GT_INLINE vi nearest(vf x, const midpoints *m) {
    vi q = {0};
    vf a = vf_abs(x);
    for (int k = 0; k < 7; ++k) q = count_above(q, a, m->least[k]);
    return q | (((vi)x >> 28) & 8 & (q > 0));
}

/* The first of the nearest levels by their distances as float32 has them. */
GT_INLINE vi nearest_by_distance(vf x, vf d) {
    static const float levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    vf best = vf_abs(x);
    vi q = {0};
    for (int k = 1; k < 16; ++k) {
        vf distance = vf_abs(d * levels[k] - x);
        q = vi_select(distance < best, vi_set1(k), q);
        best = vf_min(distance, best);
    }
    return q;
}

/* words[k][j]: bytes 4k .. 4k+3 of the nibbles of scale j. */
GT_INLINE void round_codes(const tile *t, int n, int by_distance, uint32_t words[4][LANES]) {
    for (int o = 0; o < LANES; o += VW) {
        const vf d = vf_load(t->d + o);
        const midpoints m = midpoints_of(d);
        for (int k = 0; k < n / 8; ++k) {
            vi word = {0};
            for (int b = 0; b < 4; ++b) {
                const float *at = t->x + (4 * k + b) * LANES + o;
                vf low = vf_load(at), high = vf_load(at + n / 2 * LANES);
                vi q = by_distance ? nearest_by_distance(low, d) | nearest_by_distance(high, d) << 4
                                   : nearest(low, &m) | nearest(high, &m) << 4;
                word |= q << (8 * b);
            }
            vi_store((int32_t *)words[k] + o, word);
        }
    }
}

/* ---- choosing the scales ---- */

/* sum w e^2 over n rows, e = |x| / d less the nearest v. */
GT_INLINE vf error_of(const float *x, const float *w, int n, vf d) {
    vf sum = {0}, inverse = vf_set1(1.0f) / d;
    for (int i = 0; i < n; ++i) {
        vf t = vf_abs(vf_load(x + i * LANES)) * inverse;
        vf power = (vf)((vi)vf_max(t, vf_set1(2.0f)) & 0x7f800000), shift = power * 0x1.8p22f;
        vf e = t - vf_min((t + shift) - shift, vf_set1(12.0f));
        sum += (vf_load(w + i * LANES) * e) * e;
    }
    return sum * (d * d);
}

GT_INLINE vf energy_of(const float *x, const float *w, int n) {
    vf sum = {0};
    for (int i = 0; i < n; ++i) {
        vf v = vf_load(x + i * LANES);
        sum += (vf_load(w + i * LANES) * v) * v;
    }
    return sum;
}

GT_INLINE vf largest_of(const float *x, int n) {
    vf m = {0};
    for (int i = 0; i < n; ++i) m = vf_max(m, vf_abs(vf_load(x + i * LANES)));
    return m;
}

GT_INLINE vi clamp(vi v, int low, int high) {
    v = vi_select(v < low, vi_set1(low), v);
    return vi_select(v > high, vi_set1(high), v);
}

/* The reference's e for the largest magnitude, before it is cut to a byte. */
GT_INLINE vi reference_exponent(vf largest) {
    vi tiny = largest < vf_set1(0x1p-126f);
    vi bits = (vi)vf_select(tiny, largest * 0x1p24f, largest);
    vi e = (bits >> 23) - (tiny & 24), next = e - 126; /* the logarithm of the next power of two */
    vf reach = vf_from_int(vi_select(next > 0, next - 1, -next));
    vi near = vi_trunc((vf)((vi)reach & 0x7f800000) * 0.69314718f);
    return e - 2 - ((0x800000 - (bits & 0x7fffff)) <= near);
}

/* The exponent to start from: the reference's, and for effort fast with its wrapping around below 2^-126. */
GT_INLINE vi first_exponent(vf largest, int effort) {
    vi e = reference_exponent(largest), zero = largest == vf_set1(0.0f);
    vi proper = clamp(e, 0, TOP_E), wraps = e < -1;
    if (effort == GT_FAST) proper = vi_select(wraps, e & 255, proper);
    return vi_select(zero, vi_set1(0), proper);
}

/* x times 2^(128 - e), in two steps because the power may be no float. */
GT_INLINE void scale_rows(float *x, vi e) {
    vi half = (128 - e) >> 1, rest = 128 - e - half;
    vf first = (vf)((half + 127) << 23), second = (vf)((rest + 127) << 23);
    for (int i = 0; i < MX; ++i) vf_store(x + i * LANES, vf_load(x + i * LANES) * first * second);
}

/* Leaves x in units of the first exponent, so that d is 1/4 .. 4. */
GT_INLINE void choose_mx(tile *t, int effort) {
    static const int steps[4] = {1, -1, 2, -2};
    const int tried = effort == GT_FAST ? 0 : effort == GT_BEST ? 4 : 2;
    for (int o = 0; o < LANES; o += VW) {
        vi start = first_exponent(largest_of(t->x + o, MX), effort), code = start;
        vf d = vf_set1(1.0f), least = {0};
        scale_rows(t->x + o, start);
        if (tried) least = error_of(t->x + o, t->w + o, MX, d);
        for (int k = 0; k < tried; ++k) {
            vi e = clamp(start + steps[k], 0, TOP_E);
            vf s = (vf)((e - start + 127) << 23), error = error_of(t->x + o, t->w + o, MX, s);
            vi wins = error < least;
            least = vf_select(wins, error, least);
            d = vf_select(wins, s, d);
            code = vi_select(wins, e, code);
        }
        vf_store(t->d + o, d);
        vi_store(t->code + o, code);
    }
}

/* Half the value of a code of 0 .. 126. */
GT_INLINE vf scale_of(vi c) {
    return vf_select(c < 8, vf_from_int(c) * 0x1p-10f, (vf)((c << 20) + (119 << 23)));
}

/* The nearest code as the reference rounds; `whole` keeps what it makes of 256 and more, which is 126. */
GT_INLINE vi code_of(vf v, int whole) {
    v = vf_min(v, vf_set1(448.0f));
    vi bits = (vi)v, normal = (bits >> 20) - 960 + (bits >> 19 & 1);
    vi small = vi_trunc(vf_min(v * 512.0f + 0.5f, vf_set1(7.0f)));
    vi c = vi_select(bits < (121 << 23), small, normal);
    return vi_select(c >= (whole ? 120 : TOP_CODE), vi_set1(TOP_CODE), c);
}

GT_INLINE void choose_nv(tile *t, int effort) {
    for (int o = 0; o < LANES; o += VW) {
        const float *x = t->x + o, *w = t->w + o;
        vi start = code_of(largest_of(x, NV) / 6.0f, effort == GT_FAST), code = start;
        if (effort != GT_FAST) {
            const int from = effort == GT_BEST ? 1 - TOP_CODE : -4, to = effort == GT_BEST ? TOP_CODE - 1 : 8;
            vf least = energy_of(x, w, NV);
            code = vi_set1(0);
            for (int k = from; k <= to; ++k) {
                vi c = clamp(start + k, 1, TOP_CODE);
                vf error = error_of(x, w, NV, scale_of(c));
                vi wins = error < least;
                least = vf_select(wins, error, least);
                code = vi_select(wins, c, code);
            }
        }
        vf_store(t->d + o, scale_of(code));
        vi_store(t->code + o, code);
    }
}

/* ---- rows ---- */

static float largest_of_row(const float *x, int64_t n) {
    vf m = {0};
    for (int64_t i = 0; i < n; i += VW) m = vf_max(m, vf_abs(vf_load(x + i)));
    return vf_max_of(m);
}

/* Up to sixteen groups of n on their sides, zeros in the other lanes; the weights only for a search. */
GT_INLINE void fill_tile(tile *t, const float *x, const float *w, int groups, int n, int effort) {
    float padded[MX * LANES];
    const size_t size = (size_t)(groups * n) * sizeof *x;
    memset(padded, 0, groups < LANES ? sizeof padded : 0);
    transpose(groups < LANES ? memcpy(padded, x, size) : x, n, n, t->x);
    if (effort == GT_FAST) return;
    if (w) transpose(groups < LANES ? memcpy(padded, w, size) : w, n, n, t->w);
    else
        for (int i = 0; i < n * LANES; i += VW) vf_store(t->w + i, vf_set1(1.0f));
}

static void mxfp4_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    if (opt->objective == GT_MSE) w = NULL;
    for (int64_t i = 0; i < n; i += MX * LANES) {
        const int blocks = n - i < MX * LANES ? (int)((n - i) / MX) : LANES;
        uint32_t words[4][LANES];
        tile t;
        fill_tile(&t, x + i, w ? w + i : NULL, blocks, MX, opt->effort);
        choose_mx(&t, opt->effort);
        round_codes(&t, MX, 0, words);
        for (int j = 0; j < blocks; ++j, out += 17) {
            out[0] = (uint8_t)t.code[j];
            for (int k = 0; k < 4; ++k) u32_store(out + 1 + 4 * k, words[k][j]);
        }
    }
}

static void nvfp4_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    const int far = largest_of_row(x, n) > FAR;
    if (opt->objective == GT_MSE) w = NULL;
    for (int64_t i = 0; i < n; i += NV * LANES) {
        const int groups = n - i < NV * LANES ? (int)((n - i) / NV) : LANES;
        uint32_t words[4][LANES];
        tile t;
        fill_tile(&t, x + i, w ? w + i : NULL, groups, NV, opt->effort);
        if (far && opt->effort != GT_FAST)
            for (int k = 0; k < NV * LANES; k += VW)
                vf_store(t.x + k, within_far(vf_load(t.x + k)));
        choose_nv(&t, opt->effort);
        if (far && opt->effort == GT_FAST) round_codes(&t, NV, 1, words);
        else round_codes(&t, NV, 0, words);
        for (int j = 0; j < groups; ++j) {
            out[j % 4] = (uint8_t)t.code[j];
            for (int k = 0; k < 2; ++k) u32_store(out + 4 + 8 * (j % 4) + 4 * k, words[k][j]);
            if (j % 4 == 3) out += 36;
        }
    }
}

/* ---- decoders ---- */

typedef int8_t bytes16 __attribute__((vector_size(16)));

/* v[q] of sixteen nibbles. */
GT_INLINE void put_levels(bytes16 q, vf d, float *y) {
    uint8_t levels[16];
    bytes16 m = q & 7, negative = q > 7, v = m - (m > 4) - (m > 5) - 3 * (m > 6);
    v = (v ^ negative) - negative;
    memcpy(levels, &v, 16);
    for (int k = 0; k < 16; k += VW) vf_store(y + k, vf_from_int(vi_load_i8(levels + k)) * d);
}

static void mxfp4_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += MX, in += 17) {
        const uint32_t e = in[0];
        const vf d = vf_set1(f_from_bits(e < 2 ? 0x200000u << e : (e - 1) << 23));
        bytes16 q;
        memcpy(&q, in + 1, 16);
        put_levels(q & 15, d, y + i);
        put_levels(q >> 4 & 15, d, y + i + 16);
    }
}

static void nvfp4_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 64, in += 36)
        for (int s = 0; s < 4; ++s) {
            const int c = in[s] & 127;
            const float d = c < 8 ? (float)c * 0x1p-10f : f_from_bits((uint32_t)((c << 20) + (119 << 23)));
            int64_t nibbles;
            memcpy(&nibbles, in + 4 + 8 * s, 8);
            typedef int64_t pair __attribute__((vector_size(16)));
            put_levels((bytes16)(pair){nibbles, nibbles >> 4} & 15, vf_set1(in[s] == 127 ? 0.0f : d), y + i + 16 * s);
        }
}

const gt_codec GT_FN(gt_fp4)[] = {{39, MX, 17, 0, mxfp4_encode, mxfp4_decode},
                                  {40, 64, 36, 0, nvfp4_encode, nvfp4_decode},
                                  {0}};
