/* The gain of a row, given back.
 *
 * A least-squares fit is orthogonal to its own error, so what it stores is shorter than what it was given: with weights w
 * the projection sum(w x y) / sum(w x x) of a Q2_K row is about 0.94. Every output of a layer shrinks by that, and the
 * shrinking adds up over layers, which costs more divergence than the error that the fit saves. The cure is one factor per row
 * on the stored f16 scales, f = sum(w x x) / sum(w x y): codes and integer scales stay, the row's response to
 * activations of those energies is right again, and the weighted error rises by the square of what was missing (from
 * 0.057 to 0.060 in the example, where the reference has 0.062).
 *
 * The products come from the error sums of measure.c: sum(w x y) = (sum(w x x) + sum(w y y) - sum(w e e)) / 2. */
#ifndef GGUFTOOL_GAIN_H
#define GGUFTOOL_GAIN_H

#include "gguftool.h"
#include "vec.h"

/* What a ternary type at 1.5 bits may need: IQ1_S stores rows with heavy tails at 0.74 of their size. */
#define GT_MAX_GAIN 1.4375 /* below 1.5, which would double the least binary16 */

/* Rows with a larger sum of squares keep their gain: their values might pass the end of binary32. */
#define GT_MAX_ENERGY 1e76

#define GT_IQ1_M 29

/* Where a block's f16 scales lie, ended by -1; none for types whose gain is left alone. Of a type with a row header it
 * is the header that begins with the scale, of 16 bits or, if it has four bytes or more, of 32. */
static const int *gt_scale_offsets(int id) {
    static const int none[] = {-1}, q2_k[] = {80, 82, -1}, q3_k[] = {108, -1}, q45_k[] = {0, 2, -1}, q6_k[] = {208, -1};
    static const int tq1_0[] = {52, -1}, tq2_0[] = {64, -1}, first[] = {0, -1}, iq1_m[] = {48, -1};
    switch (id) {
    case 10: return q2_k;
    case 11: return q3_k;
    case 12:
    case 13: return q45_k;
    case 14: return q6_k;
    case 16: /* iq2_xxs, iq2_xs, iq3_xxs, iq1_s, iq4_nl, iq3_s, iq2_s, iq4_xs */
    case 17:
    case 18:
    case 19:
    case 20:
    case 21:
    case 22:
    case 23:
    case 41: /* q1_0, q2_0 */
    case 42:
    case 133: /* q6_0 */
    case 137: /* iq2_k, iq3_k, iq4_k, iq5_k, iq6_k */
    case 138:
    case 139:
    case 140:
    case 141:
    case 144: /* iq4_ks, iq2_ks, iq4_kss, iq5_ks */
    case 145:
    case 146:
    case 152:
    case 153: /* iq2_kt, iq3_kt, iq4_kt, iq1_kt */
    case 154:
    case 155:
    case 158:
    case 156: /* iq3_ks, iq2_kl */
    case 157: return first;
    case GT_IQ1_M: return iq1_m;
    case 34: return tq1_0;
    case 35: return tq2_0;
    default: return none;
    }
}

/* The factor for a row x that decodes to y; w may be NULL (all ones). */
static double gt_gain(gt_error_row error_row, const float *x, const float *y, const double *w, int64_t n) {
    double xy[4] = {0}, yx[4] = {0};
    error_row(x, y, w, n, xy);
    error_row(y, x, w, n, yx);
    double xx = xy[1], product = (xx + yx[1] - xy[0]) / 2;
    if (!(product > 0 && yx[3] <= GT_MAX_ENERGY)) return 1;
    double gain = xx / product;
    return gain > GT_MAX_GAIN ? GT_MAX_GAIN : gain < 1 / GT_MAX_GAIN ? 1 / GT_MAX_GAIN : gain;
}

/* One stored scale. That of iq1_m is scattered: its nibbles, the lowest first, top four words. */
static uint16_t gt_scale_load(const uint8_t *at, int scattered) {
    uint16_t h = (uint16_t)(at[0] | at[1] << 8);
    if (scattered) h = (uint16_t)(at[1] >> 4 | (at[3] & 0xf0) | (at[5] & 0xf0) << 4 | (at[7] & 0xf0) << 8);
    return h;
}

static void gt_scale_store(uint8_t *at, int scattered, uint16_t h) {
    if (scattered) {
        for (int k = 0; k < 4; ++k) at[2 * k + 1] = (uint8_t)((at[2 * k + 1] & 15) | (h >> 4 * k & 15) << 4);
    } else {
        memcpy(at, &h, 2);
    }
}

static void gt_scale_row(const gt_codec *c, double gain, int64_t n, uint8_t *out) {
    const int *offsets = gt_scale_offsets(c->id), scattered = c->id == GT_IQ1_M;
    uint8_t *block = out;
    if (c->row_header >= 4) {
        float scale;
        memcpy(&scale, out, 4);
        scale = (float)((double)scale * gain);
        memcpy(out, &scale, 4);
        return;
    }
    const int64_t blocks = c->row_header ? 1 : n / c->block_size;
    for (int64_t b = 0; b < blocks; ++b, block += c->block_bytes)
        for (const int *at = offsets; *at >= 0; ++at) {
            const float scale = f16_to_float(gt_scale_load(block + *at, scattered));
            gt_scale_store(block + *at, scattered, f16_from_scale((float)((double)scale * gain)));
        }
}

#endif
