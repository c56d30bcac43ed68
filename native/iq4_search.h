/* The search for scales over the IQ4 codebook, sixteen blocks of 32 side by side.
 *
 * A block stores x as s * V[q], V sixteen integers from -127 to 113, closer together near zero and not symmetric, so
 * that the sign of s matters: -s is s with the mirrored codebook -V. Both signs are always tried; together they share
 * t = x / s. symmetric_search.h says why blocks are in the lanes and how everything is scaled.
 *
 * The nearest entry to t. No two thresholds (the middles between entries) are closer than 11.5, so a cell of width 11
 * around a multiple of 11 holds at most one, and its two entries are the only ones to compare: two permutations of 32
 * entries by the lowest bits of a rounded number (AVX-512). AVX2 finds the pair of entries by a binary search over
 * seven thresholds, others load the cell. All of them are exact, ties go to the upper entry: the bytes agree.
 */
#ifndef GGUFTOOL_IQ4_SEARCH_H
#define GGUFTOOL_IQ4_SEARCH_H

#include "symmetric_search.h"

#define BLOCK 32
#define BATCH (BLOCK * LANES)
#define SUPER 256
#define SUBS (SUPER / BLOCK)
#define TOP 127.0f /* the largest entry */

/* By sign, then low and high entry of each cell; cell k lies around 11 k, -16 <= k < 16, at k & 31. */
static const float IQ4_CELLS[2][2][32] = {
    {{-10, 1, 13, 25, 38, 53, 53, 69, 89, 89, 113, 113, 113, 113, 113, 113, -127, -127, -127, -127, -127,
      -127, -127, -104, -104, -83, -65, -65, -49, -35, -22, -22},
     {1, 13, 25, 38, 53, 53, 69, 89, 89, 113, 113, 113, 113, 113, 113, 113, -127, -127, -127, -127, -127,
      -104, -104, -83, -83, -65, -65, -49, -35, -22, -22, -10}},
    {{-1, 10, 22, 22, 35, 49, 65, 65, 83, 83, 104, 104, 127, 127, 127, 127, 127, -113, -113, -113, -113, -113,
      -113, -113, -89, -89, -69, -53, -53, -38, -25, -13},
     {10, 22, 22, 35, 49, 65, 65, 83, 104, 104, 127, 127, 127, 127, 127, 127, 127, -113, -113, -113, -113,
      -113, -113, -89, -89, -69, -53, -53, -38, -25, -13, -1}}};

#define FARTHEST_CELL 165.0f /* what is beyond 15 cells goes into the last one */

#if VW == 16
typedef struct {
    __m512 low[2], high[2];
} book;
GT_INLINE book open_book(int mirrored) {
    const float *low = IQ4_CELLS[mirrored][0], *high = IQ4_CELLS[mirrored][1];
    return (book){{_mm512_loadu_ps(low), _mm512_loadu_ps(low + 16)},
                  {_mm512_loadu_ps(high), _mm512_loadu_ps(high + 16)}};
}
GT_INLINE vi cell_of(vf t, const book *b) {
    (void)b;
    __m512 near = _mm512_range_ps((__m512)t, _mm512_set1_ps(FARTHEST_CELL), 2); /* the lesser magnitude, t's sign */
    /* Fused or not: near the edge of a cell both neighbours hold the nearest entry. */
    return (vi)_mm512_fmadd_ps(near, _mm512_set1_ps(1.0f / 11.0f), _mm512_set1_ps(GT_MAGIC));
}
GT_INLINE vf low_of(vi cell, const book *b) {
    return (vf)_mm512_permutex2var_ps(b->low[0], (__m512i)cell, b->low[1]);
}
GT_INLINE vf high_of(vi cell, const book *b) {
    return (vf)_mm512_permutex2var_ps(b->high[0], (__m512i)cell, b->high[1]);
}
#elif VW == 8
/* The entries in eight pairs, in the order in which the binary search numbers them: 0, -1 .. -7, modulo 8. */
typedef struct {
    __m256 middle, quarters[2], eighths, low, high;
} book;
GT_INLINE book open_book(int mirrored) {
    if (mirrored)
        return (book){_mm256_set1_ps(4.5f),
                      {_mm256_set1_ps(-45.5f), _mm256_set1_ps(57.0f)},
                      _mm256_setr_ps(-79.0f, 0.0f, 0.0f, 0.0f, 0.0f, 93.5f, 28.5f, -19.0f),
                      _mm256_setr_ps(-113.0f, 104.0f, 65.0f, 35.0f, 10.0f, -13.0f, -38.0f, -69.0f),
                      _mm256_setr_ps(-89.0f, 127.0f, 83.0f, 49.0f, 22.0f, -1.0f, -25.0f, -53.0f)};
    return (book){_mm256_set1_ps(-4.5f),
                  {_mm256_set1_ps(-57.0f), _mm256_set1_ps(45.5f)},
                  _mm256_setr_ps(-93.5f, 0.0f, 0.0f, 0.0f, 0.0f, 79.0f, 19.0f, -28.5f),
                  _mm256_setr_ps(-127.0f, 89.0f, 53.0f, 25.0f, 1.0f, -22.0f, -49.0f, -83.0f),
                  _mm256_setr_ps(-104.0f, 113.0f, 69.0f, 38.0f, 13.0f, -10.0f, -35.0f, -65.0f)};
}
GT_INLINE vi at_least(vf t, __m256 threshold) { return (vi)_mm256_cmp_ps((__m256)t, threshold, _CMP_GE_OQ); }
GT_INLINE vi cell_of(vf t, const book *b) {
    vi k = at_least(t, b->middle);
    vi above = at_least(t, _mm256_blendv_ps(b->quarters[0], b->quarters[1], (__m256)k));
    k = k + k + above;
    return k + k + at_least(t, _mm256_permutevar8x32_ps(b->eighths, (__m256i)k));
}
GT_INLINE vf low_of(vi cell, const book *b) { return (vf)_mm256_permutevar8x32_ps(b->low, (__m256i)cell); }
GT_INLINE vf high_of(vi cell, const book *b) { return (vf)_mm256_permutevar8x32_ps(b->high, (__m256i)cell); }
#else
typedef struct {
    const float *low, *high;
} book;
GT_INLINE book open_book(int mirrored) { return (book){IQ4_CELLS[mirrored][0], IQ4_CELLS[mirrored][1]}; }
GT_INLINE vi cell_of(vf t, const book *b) {
    (void)b;
    vf near = vf_min(vf_max(t, vf_set1(-FARTHEST_CELL)), vf_set1(FARTHEST_CELL));
    return (vi)(near * (1.0f / 11.0f) + GT_MAGIC) & 31;
}
GT_INLINE vf low_of(vi cell, const book *b) {
    vf v;
    for (int k = 0; k < VW; ++k) v[k] = b->low[cell[k]];
    return v;
}
GT_INLINE vf high_of(vi cell, const book *b) {
    vf v;
    for (int k = 0; k < VW; ++k) v[k] = b->high[cell[k]];
    return v;
}
#endif

/* The entry nearest to t. */
GT_INLINE vf entry_of(vf t, vi cell, const book *b) {
    vf low = low_of(cell, b), high = high_of(cell, b), twice = t + t, middle = low + high;
#if VW == 16
    __mmask16 above = _mm512_cmp_ps_mask((__m512)twice, (__m512)middle, _CMP_GE_OQ);
    return (vf)_mm512_mask_blend_ps(above, (__m512)low, (__m512)high);
#elif VW == 8
    return (vf)_mm256_blendv_ps((__m256)low, (__m256)high, (__m256)at_least(twice, (__m256)middle));
#else
    return vf_select(twice >= middle, high, low);
#endif
}

/* The square of the distance to it: rounding keeps the order of distances, so the lesser square is its. */
GT_INLINE vf square_of(vf t, vi cell, const book *b) {
    vf e = t - low_of(cell, b), f = t - high_of(cell, b);
#if VW == 16
    vf least = (vf)_mm512_range_ps((__m512)e, (__m512)f, 6);
    return least * least;
#else
    return vf_min(e * e, f * f);
#endif
}

/* ---- over the 32 rows of a group of lanes ---- */

/* So many candidates go through the rows together. */
#define DUETS (VW == 16 ? 2 : 1)

/* For each scale, and for its negative, xl = sum w x l and ll = sum w l^2 with the nearest entries l; the negative one
 * has its codes' signs turned. */
typedef struct {
    vf xl[2], ll[2];
} moments;

GT_INLINE void moments_of_both(const float *x, const float *w, const vf inverse[DUETS], moments out[DUETS]) {
    const book books[2] = {open_book(0), open_book(1)};
    vf a[DUETS][2] = {{{0}}}, b[DUETS][2] = {{{0}}};
    for (int i = 0; i < BLOCK; ++i) {
        vf v = vf_load(x + i * LANES), weight = vf_load(w + i * LANES), wv = weight * v;
        EACH(DUETS) {
            vf t = v * inverse[u];
            for (int m = 0; m < 2; ++m) {
                vf l = entry_of(t, cell_of(t, &books[m]), &books[m]);
                a[u][m] += wv * l;
                b[u][m] += (weight * l) * l;
            }
        }
    }
    EACH(DUETS)
        for (int m = 0; m < 2; ++m) {
            out[u].xl[m] = a[u][m];
            out[u].ll[m] = b[u][m];
        }
}

/* For each scale and its negative sum w (t - l)^2. */
GT_INLINE void squares_of_both(const float *x, const float *w, const vf inverse[DUETS], vf plus[DUETS],
                               vf minus[DUETS]) {
    const book books[2] = {open_book(0), open_book(1)};
    vf a[DUETS][2] = {{{0}}};
    for (int i = 0; i < BLOCK; ++i) {
        vf v = vf_load(x + i * LANES), weight = vf_load(w + i * LANES);
        EACH(DUETS) {
            vf t = v * inverse[u];
            for (int m = 0; m < 2; ++m) a[u][m] += weight * square_of(t, cell_of(t, &books[m]), &books[m]);
        }
    }
    EACH(DUETS) {
        plus[u] = a[u][0];
        minus[u] = a[u][1];
    }
}

/* At one signed scale: xl and ll, and the sum of w (t - l)^2. */
GT_INLINE vf fit_of(const float *x, const float *w, vf inverse, vf *xl, vf *ll) {
    const book plain = open_book(0);
    vf a = {0}, b = {0}, e = {0};
    for (int i = 0; i < BLOCK; ++i) {
        vf v = vf_load(x + i * LANES), weight = vf_load(w + i * LANES), t = v * inverse;
        vf l = entry_of(t, cell_of(t, &plain), &plain), rest = t - l;
        a += (weight * v) * l;
        b += (weight * l) * l;
        e += weight * (rest * rest);
    }
    *xl = a;
    *ll = b;
    return e;
}

/* By so much a gain must be larger to count: less is noise, and the first of equals keeps blocks of constants alike. */
#define BETTER (1.0f + 0x1p-20f)

/* What each tried scale's codes come to, block by block: a tile's rows of moments on their sides, sixteen scales in a
 * row. At a scale s near a tried one the error is about energy - 2 s xl + s^2 ll, for either sign. */
#define BANK 32
typedef struct {
    float xl[2][BANK * LANES], ll[2][BANK * LANES];
} __attribute__((aligned(64))) bank;

/* The scale whose codes, once it is refitted, lower the error most, among v * (from + k * step) and their negatives;
 * the score is the gain, and more is better. Rows of moments are kept if there is a bank for them. */
GT_INLINE found search_gains(const float *x, const float *w, vf v, const spread *range, found best, bank *rows, int o) {
    for (int k = 0; k < range->count; k += DUETS) {
        vf inverse[DUETS];
        moments now[DUETS];
        EACH(DUETS) inverse[u] = vf_set1(1.0f) / (v * factor(range, k + u));
        moments_of_both(x, w, inverse, now);
        EACH(DUETS)
            for (int m = 0; m < 2; ++m) {
                vf fit = now[u].xl[m] / now[u].ll[m], gain = fit * now[u].xl[m];
                keep(&best, gain > best.score * BETTER, gain, m ? -fit : fit);
                if (!rows) continue;
                vf_store(rows->xl[m] + (k + u) * LANES + o, now[u].xl[m]);
                vf_store(rows->ll[m] + (k + u) * LANES + o, now[u].ll[m]);
            }
    }
    return best;
}

/* ---- sixteen blocks on their sides ---- */

/* Sixteen blocks on their sides: row i holds element i of each. */
typedef struct {
    float x[BATCH], w[BATCH];
    float power[LANES];   /* x here times this is x as given: its own for each block or for each super-block */
    float largest[LANES]; /* max |x| */
    float energy[LANES];  /* sum w x^2: the error of zeros */
} __attribute__((aligned(64))) tile;

/* Lane by lane the largest, or the sum, of its super-block's eight lanes; the sum in one fixed order. */
GT_INLINE void largest_of_eight(float v[LANES]) {
    for (int h = 0; h < LANES; h += SUBS) {
        float m = v[h];
        for (int j = 1; j < SUBS; ++j) m = v[h + j] > m ? v[h + j] : m;
        for (int j = 0; j < SUBS; ++j) v[h + j] = m;
    }
}
GT_INLINE void sum_of_eight(float v[LANES]) {
    for (int h = 0; h < LANES; h += SUBS) {
        float *p = v + h, s = ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
        for (int j = 0; j < SUBS; ++j) p[j] = s;
    }
}

/* The reference's weights: importance times the root of 2 mean(x^2) + x^2, the mean over the (super-)block; x^2 without
 * an importance. */
GT_INLINE void weigh_as_reference(tile *t, int has_w, int super) {
    float sums[LANES];
    for (int o = 0; o < LANES; o += VW) {
        vf a = {0};
        for (int i = 0; i < BLOCK; ++i) {
            vf x = vf_load(t->x + i * LANES + o);
            a += x * x;
        }
        vf_store(sums + o, a);
    }
    if (super) sum_of_eight(sums);
    for (int o = 0; o < LANES; o += VW) {
        vf twice_mean = vf_load(sums + o) * (super ? 2.0f / SUPER : 2.0f / BLOCK);
        for (int i = o; i < BATCH; i += LANES) {
            vf x = vf_load(t->x + i), w = has_w ? vf_load(t->w + i) * vf_sqrt(twice_mean + x * x) : x * x;
            vf_store(t->w + i, vf_max(w, vf_set1(TINY_WEIGHT)));
        }
    }
}

GT_INLINE void fill_tile(tile *t, const float *x, const float *w, int objective, int super) {
    transpose(x, BLOCK, BLOCK, t->x);
    cut_far(t->x, BATCH);
    if (w && objective != GT_MSE) transpose(w, BLOCK, BLOCK, t->w);
    else
        for (int i = 0; i < BATCH; i += VW) vf_store(t->w + i, vf_set1(1.0f));
    for (int o = 0; o < LANES; o += VW) {
        vf m = {0};
        for (int i = o; i < BATCH; i += LANES) m = vf_max(m, vf_abs(vf_load(t->x + i)));
        vf_store(t->largest + o, m);
    }
    memcpy(t->power, t->largest, sizeof t->power);
    if (super) largest_of_eight(t->power);
    for (int o = 0; o < LANES; o += VW) {
        vf power = power_of_two_of(vf_load(t->power + o)), inverse = inverse_power(power);
        for (int i = o; i < BATCH; i += LANES) vf_store(t->x + i, vf_load(t->x + i) * inverse);
        vf_store(t->largest + o, vf_load(t->largest + o) * inverse);
        vf_store(t->power + o, power);
    }
    if (objective == GT_REF) weigh_as_reference(t, w != NULL, super);
    for (int o = 0; o < LANES; o += VW) vf_store(t->energy + o, energy_of(t->x + o, t->w + o, BLOCK));
}

/* The sixteen blocks from x on; the last of a row are followed by zeros. */
GT_INLINE void fill_from_row(tile *t, const float *x, const float *w, int64_t left, int objective, int super) {
    float padded_x[BATCH], padded_w[BATCH];
    if (left < BATCH) {
        memset(padded_x, 0, sizeof padded_x);
        memcpy(padded_x, x, (size_t)left * sizeof *x);
        x = padded_x;
        for (int i = 0; w && i < BATCH; ++i) padded_w[i] = i < left ? w[i] : 1.0f;
        if (w) w = padded_w;
    }
    fill_tile(t, x, w, objective, super);
}

/* A weight so many times the root of the weighted mean square does not set the scale. Among even weights there is none. */
#define OUTLIER 6.0f

/* The scale that puts the largest element that matters at the end of the codebook; of zeros, any. */
GT_INLINE vf natural_scale(const tile *t, int o) {
    vf sum = {0};
    for (int i = 0; i < BLOCK; ++i) sum += vf_load(t->w + i * LANES + o);
    vf reach = vf_sqrt(vf_load(t->energy + o) / sum) * OUTLIER;
    return vf_max(vf_min(vf_load(t->largest + o), reach), vf_set1(LEAST_SCALE)) * (1.0f / TOP);
}

/* ---- rounding with given scales ---- */

/* Codes 0 .. 15 of 32 elements at one scale; 7 or 8 everywhere if it is 0. */
GT_INLINE void round_block(const float *x, float s, uint8_t codes[BLOCK]) {
    static const float THRESHOLDS[15] = {-115.5f, -93.5f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f, -4.5f,
                                         7.0f,    19.0f,  31.5f,  45.5f,  61.0f,  79.0f,  101.0f};
    vf inverse = vf_set1(s != 0.0f ? 1.0f / s : 0.0f);
    vi q[GT_NV(BLOCK)];
    for (int k = 0; k < GT_NV(BLOCK); ++k) {
        vf t = vf_load(x + k * VW) * inverse;
        q[k] = (vi){0};
        for (int i = 0; i < 15; ++i) q[k] -= t >= vf_set1(THRESHOLDS[i]);
    }
    vi_store_bytes32(codes, q);
}

/* Element i in the low nibble of byte i, element i + 16 in its high one. */
GT_INLINE void pack_nibbles(const uint8_t codes[BLOCK], uint8_t *out) {
    for (int i = 0; i < 16; ++i) out[i] = (uint8_t)((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

#endif
