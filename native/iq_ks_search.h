/* The search for the scales of IQ4_KSS, IQ4_KS and IQ5_KS, sixteen blocks of 32 side by side.
 *
 * At a given d a block's scale s is one of 64 odd numbers, of either sign, with one of two tables. One s is tried in
 * all four ways together: they share x / (d s), the base and the shifted table share the place in the codebook
 * (codebook.h).
 *
 * IQ4_KSS needs the nearest code of either parity. Each is one of eight levels, and no cell of 24 holds two of its
 * seven thresholds, not even when those of the shifted table are counted in; so a number of four bits, from an
 * addition, finds both. How far t is from the nearer of two levels is how far |t - middle| is from half of their
 * distance. The difference of the two squares is what a change of parity costs; the signs of four of them, xored, tell
 * whether one is due, and the least magnitude is its price. That is 19 operations for one code in one way, without a
 * code being known: those are rounded, once, when the scales have been chosen.
 */
#ifndef GGUFTOOL_IQ_KS_SEARCH_H
#define GGUFTOOL_IQ_KS_SEARCH_H

#include "codebook.h"
#include "symmetric_search.h"

#define BLOCK 32
#define BATCH (BLOCK * LANES)
#define SUPER 256
#define SUBS (SUPER / BLOCK)

typedef enum { IQ4_KSS, IQ4_KS, IQ5_KS } shape;

GT_INLINE const codebook *book_of(shape type) { return type == IQ5_KS ? &V5 : &V4; }

/* Sixteen blocks on their sides: row i holds element i of each, in units in which the row's largest is in [1, 2). */
typedef struct {
    float x[BATCH], w[BATCH];
    float largest[LANES]; /* max |x| */
} __attribute__((aligned(64))) tile;

#define MOST_STEPS 127.0f /* the largest scale; all are odd */

/* The positive end of the codebook: where the largest weight of a block comes to lie. */
GT_INLINE float end_of(shape type) { return type == IQ5_KS ? 121.0f : 113.0f; }

/* Candidates for the scale of a block: odd, from `from` to `to` times the one that puts the largest weight at the end
 * of the codebook, and `more` beyond; or, if these are 0, no further than `more` from a given one. */
typedef struct {
    float from, to;
    int more;
} window;

/* No candidate brings a weight beyond this: the cells of parities end there. */
#define FARTHEST 175.0f

/* ---- codes in pairs of parities ---- */

/* By parity, even first: the middle of a cell's two levels and half of their distance, or one level and 0. Cells are
 * 24 wide around multiples of 24; everything is in units of cells, at the lowest four bits of a cell's number. */
#define PARITY_CELL 24.0f
#define CELLS(v) (v) / PARITY_CELL
#define ROW(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)                                                            \
    {CELLS(a), CELLS(b), CELLS(c), CELLS(d), CELLS(e), CELLS(f), CELLS(g), CELLS(h),                                   \
     CELLS(i), CELLS(j), CELLS(k), CELLS(l), CELLS(m), CELLS(n), CELLS(o), CELLS(p)}
static const float PARITY_CELLS[2][2][16] __attribute__((aligned(64))) = {
    {ROW(-4.5f, 19.0f, 39.0f, 83.0f, 83.0f, 113.0f, 113.0f, 113.0f, -127.0f, -127.0f, -127.0f, -127.0f, -96.0f, -65.0f,
         -50.0f, -28.5f),
     ROW(17.5f, 6.0f, 14.0f, 30.0f, 30.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 31.0f, 0.0f, 15.0f, 6.5f)},
    {ROW(-4.5f, 19.5f, 53.5f, 79.0f, 89.0f, 89.0f, 89.0f, 89.0f, -104.0f, -104.0f, -104.0f, -104.0f, -93.5f, -66.0f,
         -49.0f, -29.5f),
     ROW(5.5f, 18.5f, 15.5f, 10.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 10.5f, 17.0f, 0.0f, 19.5f)}};

/* The lesser magnitude. */
GT_INLINE vf lesser(vf a, vf b) {
#if VW == 16
    return (vf)_mm512_range_ps((__m512)a, (__m512)b, 10);
#else
    return vf_min(vf_abs(a), vf_abs(b));
#endif
}

/* For a scale and for its negative (2, 3), with the base and with the shifted table (1, 3): sum w (t - l)^2 in cells,
 * where an odd number of odd codes in a quadruple costs the cheapest change of parity. */
GT_INLINE void parity_errors(const float *x, const float *w, vf inverse, vf sums[4]) {
    const vf unit = inverse * (1.0f / PARITY_CELL), shift = vf_set1(4.0f / PARITY_CELL);
    vf a[4] = {{0}};
    for (int k = 0; k < BLOCK / 2; k += 2) {
        const int at[4] = {k * LANES, (k + 16) * LANES, (k + 1) * LANES, (k + 17) * LANES};
        for (int side = 0; side < 2; ++side) {
            vf price[2] = {{0}};
            vi odd[2] = {{0}};
            for (int i = 0; i < 4; ++i) {
                vf weight = vf_load(w + at[i]), u = vf_load(x + at[i]) * unit;
                if (side) u = -u;
                vi cell = (vi)(u + GT_MAGIC);
                vf middle[2], half[2];
                for (int p = 0; p < 2; ++p) {
                    middle[p] = one_of_16(PARITY_CELLS[p][0], cell);
                    half[p] = one_of_16(PARITY_CELLS[p][1], cell);
                }
                for (int m = 0; m < 2; ++m) {
                    vf v = m ? u - shift : u;
                    vf e = vf_abs(v - middle[0]) - half[0], f = vf_abs(v - middle[1]) - half[1];
                    e *= e;
                    f *= f;
                    vf change = weight * (e - f);
                    a[2 * side + m] += weight * vf_min(e, f);
                    odd[m] ^= (vi)change; /* an even number of signs has the parity of the codes */
                    price[m] = i ? lesser(price[m], change) : change;
                }
            }
            for (int m = 0; m < 2; ++m) a[2 * side + m] += (vf)((odd[m] >> 31) & (vi)price[m]);
        }
    }
    for (int m = 0; m < 4; ++m) sums[m] = a[m];
}

/* The same without parities, in units of the codebook. */
GT_INLINE void plain_errors(const codebook *c, const float *x, const float *w, vf inverse, vf sums[4]) {
    const book b = open_book(c);
    vf a[4] = {{0}};
    for (int i = 0; i < BLOCK; ++i) {
        vf weight = vf_load(w + i * LANES), t = vf_load(x + i * LANES) * inverse, place[2];
        places_of(t, c, &place[0], &place[1]);
        for (int m = 0; m < 2; ++m) {
            vf low, high, v = m ? -t : t, shifted = v - c->shift;
            pair_at(place[m], &b, c, &low, &high);
            a[2 * m] += weight * lesser_square(v - low, v - high);
            a[2 * m + 1] += weight * lesser_square(shifted - low, shifted - high);
        }
    }
    for (int m = 0; m < 4; ++m) sums[m] = a[m];
}

/* ---- choosing the scales ---- */

/* Of odd numbers, one at most 2 above v >= 0, and one at most 2 below. */
GT_INLINE vf odd_above(vf v) { return 2.0f * vf_round(v * 0.5f) + 1.0f; }
GT_INLINE vf odd_below(vf v) { return 2.0f * vf_round(v * 0.5f) - 1.0f; }
GT_INLINE vf within_steps(vf v) { return vf_min(vf_max(v, vf_set1(1.0f)), vf_set1(MOST_STEPS)); }

/* The scale that the byte S of a block stands for, and what its table adds. */
GT_INLINE vf scale_of_byte(vf byte) { return vf_from_int((vi_round(byte) & 254) - 127); }
GT_INLINE vf table_of_byte(shape type, vf byte) { return vf_from_int(vi_round(byte) & 1) * book_of(type)->shift; }

/* The best byte S of each block at d, among the candidates; `given` are real scales, in units of d. */
GT_INLINE vf search_bytes(shape type, const tile *t, int o, vf d, vf given, const window *win) {
    const float *x = t->x + o, *w = t->w + o;
    const vf largest = vf_load(t->largest + o), limit = FARTHEST / largest;
    const vf natural = largest * (1.0f / end_of(type)) / d, more = vf_set1(2.0f * (float)win->more);
    vf low = odd_above(vf_min(natural * win->from, vf_set1(MOST_STEPS)));
    vf high = odd_below(vf_min(natural * win->to, vf_set1(2.0f * MOST_STEPS))) + more;
    if (win->to == 0.0f) {
        const vf middle = odd_above(vf_min(given, vf_set1(2.0f * MOST_STEPS)) - 1.0f);
        low = vf_max(middle - more, odd_above(vf_min(largest * (1.0f / FARTHEST) / d, vf_set1(MOST_STEPS))));
        high = middle + more;
    }
    low = within_steps(low);
    high = vf_max(within_steps(high), low);
    found best = {vf_set1(HOPELESS), {0}};
    const int count = (int)vf_max_of(high - low) / 2;
    for (int k = 0; k <= count; ++k) {
        vf s = vf_min(low + 2.0f * (float)k, high), e[4], inverse = vf_min(1.0f / (d * s), limit);
        if (type == IQ4_KSS) parity_errors(x, w, inverse, e);
        else plain_errors(book_of(type), x, w, inverse, e);
        for (int m = 0; m < 4; ++m) {
            vf score = e[m] * (s * s);
            keep(&best, score < best.score, score, (m < 2 ? s : -s) + (127.0f + (float)(m & 1)));
        }
    }
    return best.s;
}

#endif
