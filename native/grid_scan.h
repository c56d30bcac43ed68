/* The search over rows in sixteen-bit integers: half the width, and on many processors twice the throughput of float32.
 *
 * Which scale is best is a matter of comparing errors, and for that they need not be exact. Here a sub-block's costs
 * are integers in units of a part of its energy sum w x^2, saturated. In IQ3 the unit is 2^-17 of it: an error of two
 * percent of the energy is 2600 units, and what rounding 32 weights' costs adds to it is one or two. In IQ2, where a
 * single group may cost more than a quarter of the energy and must not look cheaper than it is, it is 2^-15. The tables
 * of halves, the comparisons and the lanes are those of grid_search.h. Rows, and errors that are compared between
 * sub-blocks, are found in float32.
 *
 * The weights' costs come without a multiplication by the level: with r = sqrt(w / unit) the terms r (x - b level) of
 * successive levels differ by r b times a constant; one subtraction and one square for a level of a weight. */
#ifndef GGUFTOOL_GRID_SCAN_H
#define GGUFTOOL_GRID_SCAN_H

#include "grid_search.h"

#if VW == 4
#define VH 8 /* lanes of a vector of sixteen-bit integers */
#else
#define VH 16
#endif
#define PARTS (VH / VW) /* so many vectors of floats have as many lanes */

typedef int16_t vh __attribute__((vector_size(2 * VH)));

/* The lesser; the sum, at most 32767; floats of 0 to 2^31 to the nearest integers, at most 32767. AVX2 leaves the lanes
 * in an order of its own, which vh_part undoes. */
#if VH == 16
GT_INLINE vh vh_min(vh a, vh b) { return (vh)_mm256_min_epi16((__m256i)a, (__m256i)b); }
GT_INLINE vh vh_add(vh a, vh b) { return (vh)_mm256_adds_epi16((__m256i)a, (__m256i)b); }
#elif defined(__SSE2__)
GT_INLINE vh vh_min(vh a, vh b) { return (vh)_mm_min_epi16((__m128i)a, (__m128i)b); }
GT_INLINE vh vh_add(vh a, vh b) { return (vh)_mm_adds_epi16((__m128i)a, (__m128i)b); }
#else
typedef uint16_t vuh __attribute__((vector_size(2 * VH)));
GT_INLINE vh vh_min(vh a, vh b) { vh m = a < b; return (m & a) | (~m & b); }
GT_INLINE vh vh_add(vh a, vh b) {
    vuh sum = (vuh)a + (vuh)b, over = (vuh)(sum > 32767);
    return (vh)((over & 32767) | (~over & sum));
}
#endif

#if VW == 16
GT_INLINE vh vh_round(const vf v[PARTS]) { return (vh)_mm512_cvtsepi32_epi16(_mm512_cvtps_epi32((__m512)v[0])); }
GT_INLINE vi vh_part(vh v, int part) { return (void)part, (vi)_mm512_cvtepi16_epi32((__m256i)v); }
#elif VW == 8
GT_INLINE vh vh_round(const vf v[PARTS]) {
    return (vh)_mm256_packs_epi32(_mm256_cvtps_epi32((__m256)v[0]), _mm256_cvtps_epi32((__m256)v[1]));
}
GT_INLINE vi vh_part(vh v, int part) {
    __m256i zero = _mm256_setzero_si256();
    return (vi)(part ? _mm256_unpackhi_epi16((__m256i)v, zero) : _mm256_unpacklo_epi16((__m256i)v, zero));
}
#elif defined(__SSE2__)
GT_INLINE vh vh_round(const vf v[PARTS]) {
    return (vh)_mm_packs_epi32(_mm_cvtps_epi32((__m128)v[0]), _mm_cvtps_epi32((__m128)v[1]));
}
GT_INLINE vi vh_part(vh v, int part) {
    __m128i zero = _mm_setzero_si128();
    return (vi)(part ? _mm_unpackhi_epi16((__m128i)v, zero) : _mm_unpacklo_epi16((__m128i)v, zero));
}
#else
GT_INLINE vh vh_round(const vf v[PARTS]) {
    vh r = {0};
    for (int i = 0; i < VH; ++i) {
        float x = v[i / VW][i % VW];
        r[i] = (int16_t)i_round(x < 32767.0f ? x : 32767.0f);
    }
    return r;
}
GT_INLINE vi vh_part(vh v, int part) {
    vi r = {0};
    for (int i = 0; i < VW; ++i) r[i] = v[part * VW + i];
    return r;
}
#endif

/* The scales of one vector's lanes; at half the size every weight has the lowest level, and beyond it is only worse. */
typedef struct {
    vf b[PARTS];
} scan_scales;

GT_INLINE scan_scales scales_to_scan(const grid_tile *t, const float *b, int o) {
    scan_scales s;
    for (int u = 0; u < PARTS; ++u) s.b[u] = vf_min(vf_load(b + o + u * VW), vf_load(t->size + o + u * VW) * 0.5f);
    return s;
}

/* What the levels of weight `at` cost. */
GT_INLINE void level_costs(const grid_tile *t, int at, const scan_scales *s, int n_levels, enum grid_levels kind,
                           vh *cost) {
    vf e[PARTS], rb[PARTS];
    for (int u = 0; u < PARTS; ++u) {
        vf r = vf_load(t->root + at + u * VW), x = vf_load(t->x + at + u * VW);
        rb[u] = r * s->b[u];
        e[u] = r * x - rb[u] * level_at(0, kind);
    }
    for (int l = 0; l < n_levels; ++l) {
        vf square[PARTS];
        for (int u = 0; u < PARTS; ++u) {
            if (l) e[u] -= rb[u] * (level_at(l, kind) - level_at(l - 1, kind));
            square[u] = e[u] * e[u];
        }
        cost[l] = vh_round(square);
    }
}

/* What a wrong sign adds, 4 w x b level; nothing in the lanes that `odd`, if given, leaves out. */
GT_INLINE void flip_costs(const grid_tile *t, int at, const scan_scales *s, const int32_t *odd, int n_levels,
                          enum grid_levels kind, vh *cost) {
    vf y[PARTS];
    for (int u = 0; u < PARTS; ++u) {
        vf r = vf_load(t->root + at + u * VW), x = vf_load(t->x + at + u * VW);
        y[u] = (r * x) * (r * s->b[u]);
        if (odd) y[u] = (vf)((vi)y[u] & vi_load(odd + u * VW));
    }
    for (int l = 0; l < n_levels; ++l) {
        vf more[PARTS];
        for (int u = 0; u < PARTS; ++u) more[u] = y[u] * (4.0f * level_at(l, kind));
        cost[l] = vh_round(more);
    }
}

/* table[p] of all points of n_dims digits, from the digits' costs. */
#define SCAN_POINTS(n_dims, n_levels, one, JOIN, table)                                                           \
    {                                                                                                             \
        vh pair[2][64];                                                                                           \
        for (int h = 0; h < (n_dims) / 2; ++h)                                                                    \
            for (int l = 0; l < (n_levels); ++l)                                                                  \
                for (int k = 0; k < (n_levels); ++k)                                                              \
                    ((n_dims) == 2 ? (table) : pair[h])[l * (n_levels) + k] = JOIN(one[2 * h][k], one[2 * h + 1][l]); \
        if ((n_dims) == 4)                                                                                        \
            for (int l = 0; l < (n_levels) * (n_levels); ++l)                                                     \
                for (int k = 0; k < (n_levels) * (n_levels); ++k)                                                 \
                    (table)[l * (n_levels) * (n_levels) + k] = JOIN(pair[0][k], pair[1][l]);                      \
    }

/* Both halves of one group, ready for GRID_..._ROWS. */
typedef struct {
    vh first[ALL_FIRST], second[ALL_HALVES];
} scan_table;

GT_INLINE void scan_half(const grid_tile *t, int at, const scan_scales *s, int n_dims, int n_levels,
                         enum grid_levels kind, vh *table) {
    vh one[4][8];
    for (int i = 0; i < n_dims; ++i) level_costs(t, at + i * LANES, s, n_levels, kind, one[i]);
    SCAN_POINTS(n_dims, n_levels, one, vh_add, table)
}

GT_INLINE void scan_half_flipped(const grid_tile *t, int at, const scan_scales *s, const int32_t *odd, int n_dims,
                                 int n_levels, enum grid_levels kind, const vh *plain, vh *table) {
    vh one[4][8];
    int points = n_dims == 2 ? n_levels * n_levels : n_levels * n_levels * n_levels * n_levels;
    for (int i = 0; i < n_dims; ++i) flip_costs(t, at + i * LANES, s, odd, n_levels, kind, one[i]);
    SCAN_POINTS(n_dims, n_levels, one, vh_min, table)
    for (int p = 0; p < points; ++p) table[p] = vh_add(plain[p], table[p]);
}

GT_INLINE void scan_group(const grid_tile *t, int at, const scan_scales *s, int n_dims, int n_levels,
                          enum grid_levels kind, scan_table *g) {
    scan_half(t, at, s, n_dims, n_levels, kind, g->first);
    scan_half(t, at + n_dims * LANES, s, n_dims, n_levels, kind, g->second);
}

GT_INLINE void scan_group_flipped(const grid_tile *t, int at, const scan_scales *s, const int32_t *odd, int n_dims,
                                  int n_levels, enum grid_levels kind, const scan_table *plain, scan_table *g) {
    scan_half_flipped(t, at, s, odd, n_dims, n_levels, kind, plain->first, g->first);
    scan_half_flipped(t, at + n_dims * LANES, s, odd, n_dims, n_levels, kind, plain->second, g->second);
}

/* ---- GRID_<NAME>_ROWS(SCAN, SCAN_AND), and with `worse` for one wrong sign SCAN_ODD: as LEAST and LEAST_ODD ---- */

#define SCAN_PAIR(p, a, b) table->first[p] = vh_min(table->first[a], table->first[b]);
#define SCAN_AND(p) m = vh_min(m, table->first[p]);
#define SCAN(s, f, rest)                                        \
    {                                                           \
        vh m = table->first[f];                                 \
        rest best = vh_min(best, vh_add(table->second[s], m));  \
    }

#define SCAN_ODD_PAIR(p, a, b)                                  \
    table->first[p] = vh_min(table->first[a], table->first[b]); \
    wrong->first[p] = vh_min(wrong->first[a], wrong->first[b]);
#define SCAN_AND_ODD(p)             \
    m = vh_min(m, table->first[p]); \
    n = vh_min(n, wrong->first[p]);
#define SCAN_ODD(s, f, rest)                                                             \
    {                                                                                    \
        vh m = table->first[f], n = wrong->first[f];                                     \
        rest best = vh_min(best, vh_add(table->second[s], m));                           \
        worse = vh_min(worse, vh_min(vh_add(table->second[s], n), vh_add(wrong->second[s], m))); \
    }

#define VH_MOST ((vh){0} + 32767)

/* Sums of the groups' costs, and back to errors. */
typedef struct {
    vi part[PARTS];
} scan_sums;

GT_INLINE void scan_total(const grid_tile *t, const scan_sums *sums, int o, float *error) {
    for (int u = 0; u < PARTS; ++u)
        vf_store(error + o + u * VW, vf_from_int(sums->part[u]) * vf_load(t->unit + o + u * VW));
}

#endif
