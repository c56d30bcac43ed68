/* Searches in a codebook of the trellis types: the nearest point to a target, and the costs of many scales at once.
 *
 * Both visit vectors of sixteen points, those of the cells (kt_codebook.h) that are near enough; sums of integers are
 * the same on every instruction set.
 *
 * nearest_point: distances are sums of ((t - g) r >> 16)^2, t and g in 64ths and r the square root of the weight, at most
 * MAX_ROOT: a subtraction, a high product and a product that adds pairs for sixteen points at two coordinates. What that
 * rounds off is a hundredth of the least distance. Visited are the cells whose least distance is below a part of the
 * best distance so far: with all of it the result would be exact, but few nearest points lie in corners.
 *
 * scan_scales: the error of a group x at a scale s is sum w x^2 + s^2 B - 2 s A with A = sum w x g and B = sum w g^2
 * the same for all scales. So one visit to a vector serves all scales that are close together; it tells the least
 * costs alone, not whose they are, which is three operations for a scale and sixteen points.
 */
#ifndef GGUFTOOL_KT_SEARCH_H
#define GGUFTOOL_KT_SEARCH_H

#include "kt_codebook.h"

/* ---- vectors of 16-bit integers ---- */

typedef int16_t vs __attribute__((vector_size(4 * VW)));
GT_INLINE vs vs_load(const int16_t *p) { vs v; memcpy(&v, p, sizeof v); return v; }
GT_INLINE vs vs_pair(const int16_t *p) { int32_t two; memcpy(&two, p, 4); return (vs)vi_set1(two); }

/* The high halves of products; sums of two neighbouring products; whether any of GROUP is below best; which are below. */
#if VW == 16
GT_INLINE vs vs_mulhi(vs a, vs b) { return (vs)_mm512_mulhi_epi16((__m512i)a, (__m512i)b); }
GT_INLINE vi vs_madd(vs a, vs b) { return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
GT_INLINE int any_less(const vi *d, int32_t best) {
    return _mm512_cmplt_epi32_mask((__m512i)d[0], _mm512_set1_epi32(best)) != 0;
}
GT_INLINE uint32_t mask_less(vi d, vi limit) { return _mm512_cmplt_epi32_mask((__m512i)d, (__m512i)limit); }
#elif VW == 8
GT_INLINE vs vs_mulhi(vs a, vs b) { return (vs)_mm256_mulhi_epi16((__m256i)a, (__m256i)b); }
GT_INLINE vi vs_madd(vs a, vs b) { return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
GT_INLINE int any_less(const vi *d, int32_t best) {
    vi less = (d[0] < best) | (d[1] < best);
    return !_mm256_testz_si256((__m256i)less, (__m256i)less);
}
GT_INLINE uint32_t mask_less(vi d, vi limit) { return (uint32_t)_mm256_movemask_ps((__m256)(d < limit)); }
#elif defined(__SSE2__)
GT_INLINE vs vs_mulhi(vs a, vs b) { return (vs)_mm_mulhi_epi16((__m128i)a, (__m128i)b); }
GT_INLINE vi vs_madd(vs a, vs b) { return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b); }
GT_INLINE int any_less(const vi *d, int32_t best) {
    vi less = (d[0] < best) | (d[1] < best) | (d[2] < best) | (d[3] < best);
    return _mm_movemask_epi8((__m128i)less) != 0;
}
GT_INLINE uint32_t mask_less(vi d, vi limit) { return (uint32_t)_mm_movemask_ps((__m128)(d < limit)); }
#else
GT_INLINE vs vs_mulhi(vs a, vs b) {
    vs c;
    for (int k = 0; k < 2 * VW; ++k) c[k] = (int16_t)((int32_t)a[k] * b[k] >> 16);
    return c;
}
GT_INLINE vi vs_madd(vs a, vs b) {
    vi c;
    for (int k = 0; k < VW; ++k) c[k] = (int32_t)a[2 * k] * b[2 * k] + (int32_t)a[2 * k + 1] * b[2 * k + 1];
    return c;
}
GT_INLINE uint32_t mask_less(vi d, vi limit) {
    uint32_t mask = 0;
    for (int k = 0; k < VW; ++k) mask |= (uint32_t)(d[k] < limit[k]) << k;
    return mask;
}
GT_INLINE int any_less(const vi *d, int32_t best) {
    uint32_t any = 0;
    for (int k = 0; k < GT_NV(GROUP); ++k) any |= mask_less(d[k], vi_set1(best));
    return any != 0;
}
#endif

/* ---- which vectors to visit ---- */

/* A target, or all between two (from and to, coordinate by coordinate), and the roots of its weights. */
#define MAX_ROOT 32000
#define MAX_TARGET (370 * UNIT) /* |t - g| stays within 16 bits, and a sum of eight squares within 31 */
#define DISTANCE_UNIT (65536.0f / UNIT / MAX_ROOT)
typedef struct {
    int16_t from[8], to[8], r[8];
} target;

/* costs[q][k] = the least distance, in the coordinates of quarter q, to its k-th tuple of bins. */
GT_INLINE void tuple_costs(const codebook *b, const shape f, const target *g, int32_t costs[4][MAX_TUPLES]) {
    int32_t c[8][MAX_BINS];
    for (int j = 0; j < f.dims; ++j)
        for (int k = 0; k < f.bins[j % 2]; ++k) {
            int below = b->low[j % 2][k] - g->to[j], above = g->from[j] - b->high[j % 2][k];
            int away = below > above ? below : above;
            int32_t s = (away > 0 ? away : 0) * g->r[j] >> 16;
            c[j][k] = s * s;
        }
    for (int q = 0; q < 4; ++q)
        for (int k = 0; k < f.tuples; ++k)
            costs[q][k] = f.dims == 4 ? c[q][k] : c[2 * q][k / f.bins[1]] + c[2 * q + 1][k % f.bins[1]];
}

/* The least distances to cells: first[cell / half] + second[cell % half]. What it is for the nearest cells comes back. */
typedef struct {
    int32_t first[MAX_HALF], second[MAX_HALF];
} cell_distances;

GT_INLINE int32_t measure_cells(const codebook *b, const shape f, const target *g, cell_distances *d) {
    int32_t costs[4][MAX_TUPLES], nearest = 0;
    tuple_costs(b, f, g, costs);
    for (int q = 0; q < 4; ++q) {
        int32_t least = costs[q][0];
        for (int k = 1; k < f.tuples; ++k) least = costs[q][k] < least ? costs[q][k] : least;
        nearest += least;
    }
    for (int i = 0; i < f.tuples; ++i)
        for (int k = 0; k < f.tuples; ++k) {
            d->first[i * f.tuples + k] = costs[0][i] + costs[1][k];
            d->second[i * f.tuples + k] = costs[2][i] + costs[3][k];
        }
    return nearest;
}

/* The cells whose least distance is at least from and less than to. */
GT_INLINE int cells_within(const shape f, const cell_distances *d, int32_t from, int32_t to, uint16_t *cells) {
    const int half = f.tuples * f.tuples;
    int n = 0;
    for (int i = 0; i < half; ++i) {
        if (d->first[i] >= to) continue;
        for (int k = 0; k < half; k += GROUP) {
            uint32_t mask = 0;
            for (int o = 0; o < GROUP; o += VW) {
                vi s = vi_load(d->second + k + o) + d->first[i];
                mask |= (mask_less(s, vi_set1(to)) & ~mask_less(s, vi_set1(from))) << o;
            }
            for (; mask; mask &= mask - 1) cells[n++] = (uint16_t)(i * half + k + __builtin_ctz(mask));
        }
    }
    return n;
}

/* The vectors that hold the points of the cells, each once. There is room for four more. */
GT_INLINE int vectors_of(const codebook *b, const uint16_t *cells, int n, uint16_t *vectors) {
    int count = 0;
    uint32_t next = 0;
    for (int i = 0; i < n; ++i) {
        uint32_t from = b->starts[cells[i]] / GROUP, to = (b->starts[cells[i] + 1] + GROUP - 1) / GROUP;
        from = from > next ? from : next;
        for (uint32_t k = 0; k < 4; ++k) vectors[count + (int)k] = (uint16_t)(from + k);
        for (uint32_t k = 4; from + k < to; ++k) vectors[count + (int)k] = (uint16_t)(from + k);
        count += to > from ? (int)(to - from) : 0;
        next = to > next ? to : next;
    }
    return count;
}

typedef struct {
    uint16_t cells[MAX_CELLS], vectors[MAX_CELLS + 4];
    int n_cells, n_vectors;
} visit;

/* Those that are no further than `reach` beyond the nearest cells, or less far if they were more than `most`. */
GT_INLINE void choose_visit(const codebook *b, const shape f, const target *g, int32_t reach, int most, visit *v) {
    cell_distances d __attribute__((aligned(64)));
    const int32_t nearest = measure_cells(b, f, g, &d);
    for (;; reach /= 2) {
        v->n_cells = cells_within(f, &d, 0, nearest + reach + 1, v->cells);
        v->n_vectors = vectors_of(b, v->cells, v->n_cells, v->vectors);
        if (v->n_vectors <= most || reach == 0) return;
    }
}

/* ---- the nearest point ---- */

typedef struct {
    int32_t distance;
    uint32_t at; /* where the point lies */
} found_point;

GT_INLINE const int16_t *point_at(const codebook *b, int dims, uint32_t at) {
    return b->points + (size_t)(at / GROUP) * GROUP * (size_t)dims + at % GROUP * 2;
}

GT_INLINE int32_t distance_to(const codebook *b, int dims, const target *g, uint32_t at) {
    const int16_t *p = point_at(b, dims, at);
    int32_t sum = 0;
    for (int j = 0; j < dims; ++j) {
        int32_t s = (g->from[j] - p[j / 2 * 2 * GROUP + j % 2]) * g->r[j] >> 16;
        sum += s * s;
    }
    return sum;
}

/* The best of the points of the vectors and of what it was: of equals the one that is found first. */
GT_INLINE found_point scan_points(const codebook *b, int dims, const target *g, const visit *visit, found_point n) {
    vs t[4], r[4];
    for (int j = 0; j < dims / 2; ++j) {
        t[j] = vs_pair(g->from + 2 * j);
        r[j] = vs_pair(g->r + 2 * j);
    }
    for (int i = 0; i < visit->n_vectors; ++i) {
        const uint32_t v = visit->vectors[i];
        const int16_t *p = b->points + (size_t)v * GROUP * (size_t)dims;
        vi d[GT_NV(GROUP)];
        for (int o = 0; o < GT_NV(GROUP); ++o) {
            d[o] = vi_set1(0);
            for (int j = 0; j < dims / 2; ++j) {
                vs s = vs_mulhi(t[j] - vs_load(p + j * 2 * GROUP + o * 2 * VW), r[j]);
                d[o] += vs_madd(s, s);
            }
        }
        if (__builtin_expect(any_less(d, n.distance), 0)) {
            int32_t all[GROUP];
            for (int o = 0; o < GT_NV(GROUP); ++o) vi_store(all + o * VW, d[o]);
            for (uint32_t k = 0; k < GROUP; ++k)
                if (all[k] < n.distance) n = (found_point){all[k], v * GROUP + k};
        }
    }
    return n;
}

/* The nearest point to g->from (= g->to), probably. bound: what its distance may be about, INT32_MAX if nobody knows.
 * Of each part in turn, in 256ths, the cells that are nearer than such a part of the best distance are visited. */
#define PARTS 4
GT_INLINE found_point nearest_point(const codebook *b, const shape f, const target *g, int32_t bound,
                                    const int parts[PARTS]) {
    cell_distances d __attribute__((aligned(64)));
    visit v;
    found_point n = {distance_to(b, f.dims, g, 0), 0};
    int32_t done = 0, nearest = measure_cells(b, f, g, &d);
    for (int k = 0; k < PARTS && parts[k] >= 0; ++k) {
        int32_t away = (bound < n.distance ? bound : n.distance) - nearest;
        int32_t limit = nearest + 1 + (away > 0 ? away / 256 * parts[k] : 0);
        if (limit <= done) continue;
        v.n_cells = cells_within(f, &d, done, limit, v.cells);
        v.n_vectors = vectors_of(b, v.cells, v.n_cells, v.vectors);
        n = scan_points(b, f.dims, g, &v, n);
        done = limit;
    }
    return n;
}

/* ---- many scales at once ---- */

#define SCALES 8
#define MAX_WEIGHT 16383 /* eight of them times the largest squares stay within 31 bits */
#define MAX_ALONG 32700  /* so do eight of these times the largest values in 64ths */

/* A and B of a group's points are deep * (sum of along g) and wide * (sum of weight g^2). */
typedef struct {
    int16_t along[8], weight[8];
    float deep, wide, energy; /* energy: sum of w x^2 */
} products;

/* least[k] = the least of (sum of weight g^2) + rho[k] * (sum of along g). */
GT_INLINE void scan_n_scales(const codebook *b, int dims, const products *g, const visit *visit, int n,
                             const float rho[SCALES], float least[SCALES]) {
    vs a[4], w[4];
    vf best[SCALES];
    for (int j = 0; j < dims / 2; ++j) {
        a[j] = vs_pair(g->along + 2 * j);
        w[j] = vs_pair(g->weight + 2 * j);
    }
    for (int k = 0; k < n; ++k) best[k] = vf_set1(3e38f);
    for (int i = 0; i < visit->n_vectors; ++i) {
        const int16_t *p = b->points + (size_t)visit->vectors[i] * GROUP * (size_t)dims;
        for (int o = 0; o < GT_NV(GROUP); ++o) {
            vi A = {0}, B = {0};
            for (int j = 0; j < dims / 2; ++j) {
                vs v = vs_load(p + j * 2 * GROUP + o * 2 * VW), whole = v >> 6;
                A += vs_madd(v, a[j]);
                B += vs_madd(whole * whole, w[j]);
            }
            vf fa = vf_from_int(A), fb = vf_from_int(B);
            for (int k = 0; k < n; ++k) best[k] = vf_min(fb + fa * rho[k], best[k]);
        }
    }
    for (int k = 0; k < n; ++k) least[k] = vf_min_of(best[k]);
}

GT_INLINE void scan_scales(const codebook *b, int dims, const products *g, const visit *visit, int n,
                           const float rho[SCALES], float least[SCALES]) {
    switch (n) {
    case 1: scan_n_scales(b, dims, g, visit, 1, rho, least); break;
    case 2: scan_n_scales(b, dims, g, visit, 2, rho, least); break;
    case 3: scan_n_scales(b, dims, g, visit, 3, rho, least); break;
    case 4: scan_n_scales(b, dims, g, visit, 4, rho, least); break;
    case 5:
    case 6: scan_n_scales(b, dims, g, visit, 6, rho, least); break;
    default: scan_n_scales(b, dims, g, visit, 8, rho, least);
    }
}

#endif
