/* The search for the scales of a grid type (IQ1, IQ2, IQ3), sixteen sub-blocks side by side.
 *
 * A sub-block's weights are stored in groups of four or eight, each as a row of a codebook (grids.h), times a scale
 * b = d (2 c + 1): d is the super-block's binary16, c an integer per sub-block. For a given b the cost of a row is a sum
 * over its weights, so it is a sum over its two halves, and there are few halves: 64 pairs of eight levels, or 81
 * quadruples of three. Both halves' costs are tabulated, 2 * 64 additions instead of 512 * 4, and then the best row
 * is found exactly: for each second half the least of the first halves that go with it, one `min` per row, plus one
 * addition and one `min` per second half. No neighbour lists, no rounding before the search, no row left out.
 *
 * *Sub-blocks* are in the lanes. So a table entry is one vector, one instruction per row serves sixteen groups, there
 * are no sums across lanes, every lane may have its own scale, and all instruction sets give the same bytes. Pairs of
 * first halves that many rows share are compared once (grids_header.py). So an exhaustive search of IQ3_S's 512 rows,
 * for sixteen groups and one candidate scale, is 384 times `min` and 300 other vector operations, and it is repeated for
 * as many candidates as it takes.
 *
 * Signs are stored apart (IQ1 has them in the codebook). Where only an even number of minus signs can be stored (IQ2_XXS,
 * IQ2_XS, IQ3_XXS), a group with an odd number must have one weight with the wrong sign, at a cost of 4 b w |x| level:
 * tables of halves with the cheapest such weight give the exact optimum over rows and flips together.
 *
 * The search over scales (grid_search.c) only knows `cost` and `fit` of a type.
 */
#ifndef GGUFTOOL_GRID_SEARCH_H
#define GGUFTOOL_GRID_SEARCH_H

#include "bytes.h"
#include "gguftool.h"
#include "lanes.h"

#define SUPER 256
#define TILE (32 * LANES) /* the most weights of a tile: two super-blocks of sub-blocks of 32, or one of 16 */

/* Sixteen sub-blocks on their sides: row i holds element i of each. */
typedef struct {
    float x[TILE], w[TILE];   /* x: magnitudes, but with signs in IQ1; times 1 / power of its super-block */
    int32_t odd[4 * LANES];   /* per group of eight: -1 where the number of negative weights is odd */
    uint8_t signs[4 * LANES]; /* per group of eight: its negative weights */
    float size[LANES];        /* max |x|, but not much more than the root of the weighted mean of x^2 */
    float unit[LANES];        /* of errors as integers (grid_scan.h), and root: sqrt(w / unit) */
    float root[TILE];
    float power[2];           /* per super-block */
} __attribute__((aligned(64))) grid_tile;

/* The rows that suit the scales best, and what a least-squares fit of the scales needs: sum w x q, sum w q^2. */
typedef struct {
    float xl[LANES], ll[LANES];
    uint16_t point[8 * LANES]; /* per group: the points of its halves, second * 128 + first */
    uint8_t wrong[8 * LANES];  /* per group: the weight whose sign is wrong, as a bit; IQ1: 1 for the shift below zero */
} __attribute__((aligned(64))) grid_pick;

/* What the search over scales knows of a type. `cost` gives each lane's error at the scale b[lane], `fit` the rows. */
typedef void (*grid_cost)(const grid_tile *t, const float b[LANES], float error[LANES]);
typedef struct {
    int sub; /* weights of a sub-block */
    int top; /* c is in 0 .. top */
    grid_cost cost;
    void (*fit)(const grid_tile *t, const float b[LANES], grid_pick *pick);
    float unit; /* of errors as integers, where there is a scan (grid_scan.h): this much of the energy */
} grid_type;

/* How far a search goes. The numbers were found by trying, on rows that are in no test. */
typedef struct {
    float from, step; /* real scales: the size of the sub-block times from + k * step, k < count, count >= 3 */
    int count;
    float d_from, d_step; /* the first d, of those that give the largest of these scales the code top, times ... */
    int d_count;
    int low, width; /* codes tried around a real scale v: round(v) + low + k, k < width */
    int starts;     /* then d times start_from + k * start_step, k < starts, with another window */
    float start_from, start_step;
    int start_low, start_width;
} grid_plan;

/* d and the codes of least error, per lane; d of the tile (times power it is the real one). */
typedef struct {
    float d[LANES], c[LANES];
} __attribute__((aligned(64))) grid_solution;

/* `blocks` super-blocks (1 or 2) into a tile; w may be NULL; mean_factor is that of the reference's weights, with or
 * without w. */
void GT_FN(gt_grid_fill)(grid_tile *t, const grid_type *type, const float *x, const float *w, int blocks, int objective,
                         float mean_factor, int has_signs);
/* `scan` compares real scales and `codes` the codes of one sub-block: the same integer search, or a quicker one for the
 * first; errors that are compared between sub-blocks are type->cost. */
void GT_FN(gt_grid_choose)(const grid_tile *t, const grid_type *type, grid_cost scan, grid_cost codes,
                           const grid_plan *p, grid_solution *best);
/* The best rows for a solution, and then the least-squares d for these rows, in real size. */
void GT_FN(gt_grid_round)(const grid_tile *t, const grid_type *type, grid_solution *s, grid_pick *pick);

/* ---- masks of lanes, in the processor's own form ---- */

#if VW == 16
typedef __mmask16 vm;
GT_INLINE vm vm_less(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
GT_INLINE vf vf_where(vm m, vf a, vf b) { return (vf)_mm512_mask_mov_ps((__m512)b, m, (__m512)a); }
GT_INLINE vi vi_where(vm m, vi a, vi b) { return (vi)_mm512_mask_mov_epi32((__m512i)b, m, (__m512i)a); }
#else
typedef vi vm;
GT_INLINE vm vm_less(vf a, vf b) { return a < b; }
GT_INLINE vf vf_where(vm m, vf a, vf b) { return vf_select(m, a, b); }
GT_INLINE vi vi_where(vm m, vi a, vi b) { return vi_select(m, a, b); }
#endif

/* ---- tables of halves ---- */

#define ALL_HALVES 81
#define ALL_FIRST 256 /* a first half's points, and the pairs of points that stand for both (grids_header.py) */
#define ABOVE_ALL 0x1p120f

/* table[p]: the cost of a half's point p (digit 0 least); level[t] holds the scaled levels. */
GT_INLINE void half_costs(const float *x, const float *w, const vf *level, int n_dims, int n_levels, vf *table) {
    vf one[4][8], pair[2][64];
    for (int i = 0; i < n_dims; ++i) {
        vf v = vf_load(x + i * LANES), weight = vf_load(w + i * LANES);
        for (int t = 0; t < n_levels; ++t) {
            vf e = v - level[t];
            one[i][t] = (weight * e) * e;
        }
    }
    for (int h = 0; h < n_dims / 2; ++h)
        for (int t = 0; t < n_levels; ++t)
            for (int s = 0; s < n_levels; ++s)
                (n_dims == 2 ? table : pair[h])[t * n_levels + s] = one[2 * h][s] + one[2 * h + 1][t];
    if (n_dims == 4)
        for (int t = 0; t < n_levels * n_levels; ++t)
            for (int s = 0; s < n_levels * n_levels; ++s)
                table[t * n_levels * n_levels + s] = pair[0][s] + pair[1][t];
}

/* flipped[p]: the same cost with the sign of the cheapest weight wrong, 4 w x level more; only in lanes of `odd`. */
GT_INLINE void flipped_costs(const float *x, const float *w, vi odd, const vf *level, int n_dims, int n_levels,
                             const vf *table, vf *flipped) {
    vf one[4][8], pair[2][64];
    for (int i = 0; i < n_dims; ++i) {
        vf v = (vf)((vi)((vf_load(w + i * LANES) * vf_load(x + i * LANES)) * 4.0f) & odd);
        for (int t = 0; t < n_levels; ++t) one[i][t] = v * level[t];
    }
    for (int h = 0; h < n_dims / 2; ++h)
        for (int t = 0; t < n_levels; ++t)
            for (int s = 0; s < n_levels; ++s) {
                vf least = vf_min(one[2 * h][s], one[2 * h + 1][t]);
                int p = t * n_levels + s;
                if (n_dims == 2) flipped[p] = table[p] + least;
                else pair[h][p] = least;
            }
    if (n_dims == 4)
        for (int t = 0; t < n_levels * n_levels; ++t)
            for (int s = 0; s < n_levels * n_levels; ++s) {
                int p = t * n_levels * n_levels + s;
                flipped[p] = table[p] + vf_min(pair[0][s], pair[1][t]);
            }
}

/* Both halves of one group, ready for GRID_..._ROWS. */
typedef struct {
    vf first[ALL_FIRST], second[ALL_HALVES];
} group_table;

GT_INLINE void group_costs(const float *x, const float *w, const vf *level, int n_dims, int n_levels, group_table *g) {
    half_costs(x, w, level, n_dims, n_levels, g->first);
    half_costs(x + n_dims * LANES, w + n_dims * LANES, level, n_dims, n_levels, g->second);
}

GT_INLINE void group_flipped(const float *x, const float *w, vi odd, const vf *level, int n_dims, int n_levels,
                             const group_table *plain, group_table *g) {
    int next = n_dims * LANES;
    flipped_costs(x, w, odd, level, n_dims, n_levels, plain->first, g->first);
    flipped_costs(x + next, w + next, odd, level, n_dims, n_levels, plain->second, g->second);
}

/* ---- the least cost of a group: GRID_<NAME>_ROWS(LEAST, AND) ---- */

#define LEAST_PAIR(p, a, b) table->first[p] = vf_min(table->first[a], table->first[b]);
#define AND(p) m = vf_min(m, table->first[p]);
#define LEAST(s, f, rest)                               \
    {                                                   \
        vf m = table->first[f];                         \
        rest best = vf_min(best, table->second[s] + m); \
    }

/* The same, and in `worse` the least cost with one wrong sign. */
#define LEAST_ODD_PAIR(p, a, b)                                  \
    table->first[p] = vf_min(table->first[a], table->first[b]);  \
    wrong->first[p] = vf_min(wrong->first[a], wrong->first[b]);
#define AND_ODD(p)                  \
    m = vf_min(m, table->first[p]); \
    n = vf_min(n, wrong->first[p]);
#define LEAST_ODD(s, f, rest)                                                      \
    {                                                                              \
        vf m = table->first[f], n = wrong->first[f];                               \
        rest best = vf_min(best, table->second[s] + m);                            \
        worse = vf_min(worse, vf_min(table->second[s] + n, wrong->second[s] + m)); \
    }

/* ---- which row it was ---- */

/* Puts each point's number into the lowest seven bits of its cost: then the least cost says whose it is, for a
 * sixty-thousandth of precision. */
GT_INLINE void number_points(vf *first, int n) {
    for (int p = 0; p < n; ++p) first[p] = (vf)(((vi)first[p] & ~127) | p);
}

/* The points of the best row's halves, and which half has the wrong sign: 0 none, 1 the first, 2 the second. */
typedef struct {
    vf best;
    vi first, second, wrong;
} found_row;

#define NOTHING_FOUND {vf_set1(ABOVE_ALL), {0}, {0}, {0}}

GT_INLINE void keep_row(found_row *r, vf cost, vf first, int second, vi wrong) {
    vm wins = vm_less(cost, r->best);
    r->best = vf_where(wins, cost, r->best);
    r->first = vi_where(wins, (vi)first, r->first);
    r->second = vi_where(wins, vi_set1(second), r->second);
    r->wrong = vi_where(wins, wrong, r->wrong);
}

#define FIND_PAIR LEAST_PAIR
#define FIND(s, f, rest)                                            \
    {                                                               \
        vf m = table->first[f];                                     \
        rest keep_row(&found, table->second[s] + m, m, s, (vi){0}); \
    }

/* In the lanes of `odd` with one wrong sign, in the others without. */
#define FIND_ODD_PAIR LEAST_ODD_PAIR
#define FIND_ODD(s, f, rest)                                                          \
    {                                                                                 \
        vf m = table->first[f], n = wrong->first[f];                                  \
        rest vf a = table->second[s] + n, b = wrong->second[s] + m;                   \
        vm in_first = vm_less(a, b);                                                  \
        vi how = vi_where(in_first, vi_set1(1), vi_set1(2)) & odd;                    \
        vf cost = vf_select(odd, vf_min(a, b), table->second[s] + m);                 \
        keep_row(&found, cost, vf_select(how == vi_set1(1), n, m), s, how);           \
    }

/* The levels of a grid, for digits of a point: 2 t + 1; with 15.5 at the top; 1, 3.125, 5.375; -1, 0, 1. */
enum grid_levels { ODD_LEVELS, IQ3_XXS_LEVELS, IQ2_LEVELS, TERNARY_LEVELS };

GT_INLINE float level_at(int t, enum grid_levels kind) {
    float v = (float)t;
    switch (kind) {
    case ODD_LEVELS: return 2.0f * v + 1.0f;
    case IQ3_XXS_LEVELS: return t == 7 ? 15.5f : 2.0f * v + 1.0f;
    case IQ2_LEVELS: return 1.0f + v * (2.0625f + 0.0625f * v);
    default: return v - 1.0f;
    }
}

GT_INLINE vf level_of(vi t, enum grid_levels kind) {
    vf v = vf_from_int(t);
    switch (kind) {
    case ODD_LEVELS: return v * 2.0f + 1.0f;
    case IQ3_XXS_LEVELS: return v * 2.0f + 1.0f + (vf)((t == vi_set1(7)) & (vi)vf_set1(0.5f));
    case IQ2_LEVELS: return v * (v * 0.0625f + 2.0625f) + 1.0f;
    default: return v - 1.0f;
    }
}

GT_INLINE void scaled_levels(vf b, int n, enum grid_levels kind, vf *level) {
    for (int t = 0; t < n; ++t) level[t] = b * level_at(t, kind);
}

/* The levels of a half's point, weight by weight. */
GT_INLINE void levels_of_half(vi point, int n_dims, int n_levels, enum grid_levels kind, vf *level) {
    for (int i = 0; i < n_dims; ++i) {
        vi rest = n_levels == 8 ? point >> 3 : (point * 86) >> 8; /* a third, for what is below 128 */
        level[i] = level_of(point - rest * n_levels, kind);
        point = rest;
    }
}

/* Turns the level of the cheapest weight around in the lanes of `odd`; the weight's bit. */
GT_INLINE vi turn_cheapest(const float *x, const float *w, int n_dims, vi odd, vf *level) {
    vf least = vf_set1(ABOVE_ALL);
    vi bit = {0};
    for (int i = 0; i < n_dims; ++i) {
        vf cost = (vf_load(w + i * LANES) * vf_load(x + i * LANES)) * level[i];
        vm wins = vm_less(cost, least);
        least = vf_where(wins, cost, least);
        bit = vi_where(wins, vi_set1(1 << i), bit);
    }
    bit &= odd;
    for (int i = 0; i < n_dims; ++i) level[i] = vf_select((bit & vi_set1(1 << i)) != (vi){0}, -level[i], level[i]);
    return bit;
}

/* The sums of a fit. */
typedef struct {
    vf xl, ll;
} moments;

/* Writes down a group's row and wrong sign, and adds up what its levels contribute. */
GT_INLINE void finish_group(const float *x, const float *w, int n_dims, int n_levels, enum grid_levels kind,
                            const found_row *found, int parity, int g, int o, moments *sums, grid_pick *pick) {
    vf level[8];
    vi first = (found->first & 127), bits = {0};
    levels_of_half(first, n_dims, n_levels, kind, level);
    levels_of_half(found->second, n_dims, n_levels, kind, level + n_dims);
    if (parity) {
        int next = n_dims * LANES;
        bits = turn_cheapest(x, w, n_dims, found->wrong == vi_set1(1), level);
        bits |= turn_cheapest(x + next, w + next, n_dims, found->wrong == vi_set1(2), level + n_dims) << n_dims;
    }
    for (int i = 0; i < 2 * n_dims; ++i) {
        vf wl = vf_load(w + i * LANES) * level[i];
        sums->xl += wl * vf_load(x + i * LANES);
        sums->ll += wl * level[i];
    }
    for (int j = 0; j < VW; ++j) {
        pick->point[g * LANES + o + j] = (uint16_t)(first[j] | found->second[j] << 7);
        pick->wrong[g * LANES + o + j] = (uint8_t)bits[j];
    }
}

#endif
