/* Encoders of Q4_K, Q5_K and Q2_K: super-blocks of 256 weights with two binary16 scales and integer sub-scales.
 *
 * x = (d * s_j) * l - dmin * m_j. Q4_K: eight sub-blocks of 32, l in 0..15, s and m in 0..63, 144 bytes: d, dmin, twelve
 * bytes of sub-scales (see pack_scales), 128 of nibbles, where 32 bytes hold sub-block 2k low and 2k + 1 high. Q5_K: the
 * same with l in 0..31, 176 bytes, 32 bytes of fifth bits (bit j of byte i: element i of sub-block j) before the nibbles.
 * Q2_K: sixteen sub-blocks of 16, l in 0..3, s and m in 0..15, 84 bytes: sixteen of s | m << 4, 64 of bit pairs (byte
 * 32 h + i holds elements i, i + 32, i + 64, i + 96 of half h), d, dmin.
 *
 * The reference finds real S_j and M_j, rounds the S to d * s and, apart from them, the M to dmin * m, rounds the weights,
 * and never looks back. But S and M lean on each other (through sum w l), and a scale rounded up wants a larger minimum.
 * So here, after the real search (affine_search.h):
 *  1. d and dmin are scanned: for every candidate the S are rounded, M is refitted, and the error estimated from the
 *     moments L1, L2, YL of the codes found so far, without a look at the weights;
 *  2. for given d and dmin each sub-block tries pairs of integers around its own best, codes rounded for exactly that
 *     pair, and takes the pair of least error; d and dmin are refitted by weighted least squares (two unknowns), rounded to
 *     binary16, and the pairs tried again;
 *  3. the same from a few other d around the best one.
 * Against the reference's error (mean over three kinds of rows, with importances and without): Q4_K 0.904 and 0.933,
 * Q5_K 0.826 and 0.873, Q2_K 0.863 and 0.715, in a fifth of its time; fast 0.933, 0.872, 0.874 (0.945, 0.907, 0.719) in
 * an eighteenth (Q2_K: a thirteenth); best 0.900, 0.814, 0.859 (0.930, 0.866, 0.713). Without importances the reference
 * minimises something else, so part of what Q2_K gains there is a matter of taste.
 *
 * d and dmin stay non-negative, as every reader of these types has always seen them. Each is rounded at its real size
 * before integers are chosen for it, so small weights, whose d is subnormal, do not collapse.
 *
 * Sixteen sub-blocks make a tile: two super-blocks of Q4_K and Q5_K (the second is zero behind a row's odd last one), one of
 * Q2_K. The lanes of a super-block never touch another's. choose_scales and round_codes are separate, so that an
 * encoder may change the columns in between.
 */
#include "affine_search.h"

#define SUPER 256

typedef struct {
    float s[LANES], m[LANES];    /* sub-scales */
    float d[LANES], dmin[LANES]; /* of the lane's super-block, scaled as the tile is */
    float error[LANES];          /* of the lane's super-block */
    fits own;                    /* what the sub-blocks' codes would want */
} __attribute__((aligned(64))) solution;

/* ---- the weights of the reference ---- */

/* With importances w sqrt(k mean(x^2) + x^2), k = 2 (1 in Q2_K); without, |x| plus (but not in Q2_K) the root mean
 * square of the sub-block. */
GT_INLINE void weigh_as_reference(tile *t, shape f, int has_w) {
    float sums[LANES], ones[LANES];
    EACH_LANE {
        vf a = {0};
        EACH_ROW(f.rows) {
            vf y = vf_load(t->y + i * LANES + o);
            a += y * y;
        }
        vf_store(sums + o, a);
        vf_store(ones + o, vf_set1(1.0f));
    }
    if (has_w) {
        add_groups(sums, f.group);
        EACH_LANE vf_store(sums + o, vf_load(sums + o) * ((f.rows == 32 ? 2.0f : 1.0f) / SUPER));
        weigh_by_root(t, sums, ones, f);
        return;
    }
    EACH_LANE {
        vf root = f.rows == 32 ? vf_sqrt(vf_load(sums + o) * (1.0f / 32.0f)) : vf_set1(0.0f);
        EACH_ROW(f.rows) {
            vf y = vf_load(t->y + i * LANES + o);
            vf_store(t->w + i * LANES + o, vf_max(root + vf_abs(y), vf_set1(TINY_WEIGHT)));
        }
    }
}

static void fill_tile(tile *t, const float *x, const float *w, shape f, int objective) {
    load_tile(t, x, objective == GT_MSE ? NULL : w, f);
    if (objective == GT_REF) weigh_as_reference(t, f, w != NULL);
    center_tile(t, f);
}

/* ---- choosing the scales ---- */

/* The nearest integer in 0 .. top. */
GT_INLINE vf to_code(vf v, float top) {
    return vf_min(vf_max(vf_round(vf_min(v, vf_set1(256.0f))), vf_set1(0.0f)), vf_set1(top));
}

/* Where a candidate's error is less, it and its error replace the best ones. */
GT_INLINE void keep_scale(const float error[LANES], const float now[LANES], float least[LANES], float best[LANES]) {
    EACH_LANE {
        vi wins = vf_load(error + o) < vf_load(least + o);
        vf_store(least + o, vf_select(wins, vf_load(error + o), vf_load(least + o)));
        vf_store(best + o, vf_select(wins, vf_load(now + o), vf_load(best + o)));
    }
}

/* d: factors on what the largest S needs, M refitted for every one. */
GT_INLINE void scan_d(const tile *t, shape f, float top, const plan *p, const fits *real, float d[LANES]) {
    float need[LANES], now[LANES], error[LANES], least[LANES];
    EACH_LANE {
        vf_store(need + o, vf_load(real->s + o) * (1.0f / top));
        vf_store(least + o, vf_set1(0x1p100f));
    }
    largest_of_groups(need, f.group);
    for (int k = 0; k < p->scans; ++k) {
        EACH_LANE {
            vf v = storable(vf_load(need + o) * (p->from + (float)k * p->by), vf_load(t->power + o));
            vf l1 = vf_load(real->l1 + o), s = v * to_code(vf_load(real->s + o) * inverse_of(v), top);
            vf c = vf_max((s * l1) / vf_load(t->weight + o), vf_load(t->mean + o));
            vf_store(error + o, error_of(t, o, s, c, l1, vf_load(real->l2 + o), vf_load(real->yl + o)));
            vf_store(now + o, v);
        }
        add_groups(error, f.group);
        keep_scale(error, now, least, d);
    }
}

/* dmin: the same for the M that the rounded S want. */
GT_INLINE void scan_dmin(const tile *t, shape f, float top, const plan *p, const fits *real, const float d[LANES],
                         float dmin[LANES]) {
    float need[LANES], now[LANES], error[LANES], least[LANES], want[LANES];
    EACH_LANE {
        vf v = vf_load(d + o), mean = vf_load(t->mean + o);
        vf s = v * to_code(vf_load(real->s + o) * inverse_of(v), top);
        vf c = vf_max((s * vf_load(real->l1 + o)) / vf_load(t->weight + o), mean);
        c = vf_select(s == vf_set1(0.0f), vf_load(real->c + o), c);
        vf_store(want + o, c - mean);
        vf_store(need + o, (c - mean) * (1.0f / top));
        vf_store(least + o, vf_set1(0x1p100f));
    }
    largest_of_groups(need, f.group);
    for (int k = 0; k < p->scans; ++k) {
        EACH_LANE {
            vf v = storable(vf_load(need + o) * (p->from + (float)k * p->by), vf_load(t->power + o)), m = vf_load(want + o);
            vf off = v * to_code(m * inverse_of(v), top) - m;
            vf_store(error + o, (off * off) * vf_load(t->weight + o));
            vf_store(now + o, v);
        }
        add_groups(error, f.group);
        keep_scale(error, now, least, dmin);
    }
}

/* The best pair of integers of every sub-block among the steps around its real scales; zeros if nothing is better. */
GT_INLINE void search_pairs(const tile *t, shape f, float top, const plan *p, const fits *around, solution *now) {
    EACH_LANE {
        vf d = vf_load(now->d + o), dmin = vf_load(now->dmin + o), mean = vf_load(t->mean + o);
        vf weight = vf_load(t->weight + o), energy = vf_load(t->energy + o), zero = vf_set1(0.0f);
        vf center = vf_load(around->s + o) * inverse_of(d), inverse_min = inverse_of(dmin);
        vf share = vf_load(around->l1 + o) / weight, c_at_zero = vf_load(around->c + o);
        vf best_s = zero, best_m = zero, best = energy + (mean * mean) * weight, a[MANY], b[MANY], s[MANY], m[MANY], e[MANY];
        for (int k = 0; k < p->n_steps; k += MANY) {
            EACH(MANY) {
                s[u] = to_code(vf_round(vf_min(center, vf_set1(256.0f))) + (float)STEPS[k + u].s, top);
                vf real = d * s[u], c = vf_select(real == zero, c_at_zero, real * share);
                m[u] = to_code(vf_round(vf_min((c - mean) * inverse_min, vf_set1(256.0f))) + (float)STEPS[k + u].m, top);
                a[u] = inverse_of(real);
                b[u] = (dmin * m[u] + mean) * a[u];
            }
            errors_of(t, o, f, a, b, MANY, e);
            EACH(MANY) {
                vf real = d * s[u], c = dmin * m[u] + mean;
                vf constant = energy + (c * c) * weight;
                vf error = vf_select(real == zero, constant, e[u] * (real * real));
                vi wins = error < best;
                best = vf_select(wins, error, best);
                best_s = vf_select(wins, s[u], best_s);
                best_m = vf_select(wins, m[u], best_m);
            }
        }
        vf_store(now->s + o, best_s);
        vf_store(now->m + o, best_m);
        vf_store(now->error + o, best);
    }
    add_groups(now->error, f.group);
}

/* What the sub-blocks' codes would want if nothing were rounded. */
GT_INLINE void measure_own(const tile *t, shape f, solution *now) {
    EACH_LANE {
        vf s = vf_load(now->s + o), mean = vf_load(t->mean + o), zero = vf_set1(0.0f), l1, l2, yl;
        vf a = inverse_of(vf_load(now->d + o) * s), b = (vf_load(now->dmin + o) * vf_load(now->m + o) + mean) * a;
        moments_of(t, o, f, &a, &b, 1, &l1, &l2, &yl);
        fit r = fit_of(t, o, f, l1, l2, yl);
        vf_store(now->own.l1 + o, l1);
        vf_store(now->own.l2 + o, l2);
        vf_store(now->own.yl + o, yl);
        vf_store(now->own.s + o, vf_select(s == zero, zero, r.s));
        vf_store(now->own.c + o, vf_select(s == zero, vf_max(mean, zero), r.c));
    }
}

/* Replaces d and dmin by the least-squares ones for the solution's integers and codes. */
GT_INLINE void refit_scales(const tile *t, shape f, solution *now) {
    float ss[LANES], sm[LANES], mm[LANES], sx[LANES], mx[LANES];
    EACH_LANE {
        vf s = vf_load(now->s + o), m = vf_load(now->m + o), l1 = vf_load(now->own.l1 + o), weight = vf_load(t->weight + o);
        vf mean = vf_load(t->mean + o);
        vf_store(ss + o, (s * s) * vf_load(now->own.l2 + o));
        vf_store(sm + o, (s * m) * l1);
        vf_store(mm + o, (m * m) * weight);
        vf_store(sx + o, s * (vf_load(now->own.yl + o) + mean * l1));
        vf_store(mx + o, (m * mean) * weight);
    }
    add_groups(ss, f.group);
    add_groups(sm, f.group);
    add_groups(mm, f.group);
    add_groups(sx, f.group);
    add_groups(mx, f.group);
    EACH_LANE {
        vf a = vf_load(ss + o), b = vf_load(sm + o), x = vf_load(sx + o), y = vf_load(mx + o), zero = vf_set1(0.0f);
        vf inverse = inverse_of(vf_load(mm + o)), old = vf_load(now->d + o);
        vf rest = a - b * (b * inverse);
        vi alone = rest <= a * 0x1p-12f;
        vf d = (x - b * (y * inverse)) / vf_select(alone, vf_set1(1.0f), rest);
        d = vf_select(alone, old, d);
        vf dmin = (d * b - y) * inverse;
        vi negative = (dmin < zero) & (a > zero);
        d = vf_select(negative, x * inverse_of(a), d);
        d = storable(d, vf_load(t->power + o));
        vf_store(now->d + o, vf_select(d > zero, d, old));
        vf_store(now->dmin + o, storable(dmin, vf_load(t->power + o)));
    }
}

/* Keeps per super-block the better of two solutions. */
GT_INLINE void keep(solution *best, const solution *now) {
    const float *from = (const float *)now;
    float *to = (float *)best, wins[LANES];
    EACH_LANE vf_store(wins + o, (vf)(vf_load(now->error + o) < vf_load(best->error + o)));
    for (int i = 0; i < (int)(sizeof *now / sizeof *from); i += LANES)
        EACH_LANE vf_store(to + i + o, vf_select((vi)vf_load(wins + o), vf_load(from + i + o), vf_load(to + i + o)));
}

GT_INLINE void descend(const tile *t, shape f, float top, const plan *p, const fits *around, int rounds, solution *now,
                       solution *best) {
    for (int r = 0;; ++r) {
        search_pairs(t, f, top, p, r ? &now->own : around, now);
        measure_own(t, f, now);
        keep(best, now);
        if (r + 1 >= rounds) return;
        refit_scales(t, f, now);
    }
}

GT_INLINE void choose_scales(const tile *t, shape f, float top, const plan *p, solution *best) {
    fits real;
    solution now, start;
    memset(best, 0, sizeof *best);
    EACH_LANE vf_store(best->error + o, vf_set1(0x1p100f));
    search_fits(t, f, p, &real);
    memset(&now, 0, sizeof now);
    scan_d(t, f, top, p, &real, now.d);
    scan_dmin(t, f, top, p, &real, now.d, now.dmin);
    descend(t, f, top, p, &real, p->rounds, &now, best);
    start = *best;
    for (int k = 0; k < p->n_starts; ++k) {
        EACH_LANE {
            vf power = vf_load(t->power + o);
            vf_store(now.d + o, storable(vf_load(start.d + o) * STARTS[k].d, power));
            vf_store(now.dmin + o, storable(vf_load(start.dmin + o) * STARTS[k].dmin, power));
        }
        descend(t, f, top, p, &start.own, p->settles, &now, best);
    }
}

/* ---- rounding with given scales, and the bytes ---- */

/* Codes of one super-block whose sub-blocks have the real scales s and minima m. */
GT_INLINE void round_codes(const float *x, const float *s, const float *m, int rows, int levels, uint8_t codes[SUPER]) {
    for (int j = 0; j < SUPER / 32; ++j) {
        vi q[GT_NV(32)];
        for (int k = 0; k < GT_NV(32); ++k) {
            int sub = (32 * j + k * VW) / rows;
            float inverse = s[sub] != 0.0f ? 1.0f / s[sub] : 0.0f;
            q[k] = vi_trunc(code_of((vf_load(x + 32 * j + k * VW) + m[sub]) * inverse, vf_set1((float)levels)));
        }
        vi_store_bytes32(codes + 32 * j, q);
    }
}

/* Sub-blocks 0..3 keep six bits each in bytes 0..3 (s) and 4..7 (m); of the others the low nibbles share bytes 8..11 and
 * the upper two bits sit above those of the first four. */
static void pack_scales(const float *s, const float *m, uint8_t *out) {
    for (int j = 0; j < 4; ++j) {
        int s0 = (int)s[j], m0 = (int)m[j], s1 = (int)s[j + 4], m1 = (int)m[j + 4];
        out[j] = (uint8_t)(s0 | s1 >> 4 << 6);
        out[j + 4] = (uint8_t)(m0 | m1 >> 4 << 6);
        out[j + 8] = (uint8_t)((s1 & 15) | (m1 & 15) << 4);
    }
}

static void pack_nibbles(const uint8_t *codes, uint8_t *out) {
    for (int j = 0; j < 4; ++j)
        for (int i = 0; i < 32; ++i) {
            const uint8_t *q = codes + 64 * j + i;
            out[32 * j + i] = (uint8_t)((q[0] & 15) | (q[32] & 15) << 4);
        }
}

static void pack_q4_k(const uint8_t *codes, const float *s, const float *m, uint16_t d, uint16_t dmin, uint8_t *out) {
    u16_store(out, d);
    u16_store(out + 2, dmin);
    pack_scales(s, m, out + 4);
    pack_nibbles(codes, out + 16);
}

static void pack_q5_k(const uint8_t *codes, const float *s, const float *m, uint16_t d, uint16_t dmin, uint8_t *out) {
    u16_store(out, d);
    u16_store(out + 2, dmin);
    pack_scales(s, m, out + 4);
    for (int i = 0; i < 32; ++i) {
        int high = 0;
        for (int j = 0; j < 8; ++j) high |= (codes[32 * j + i] >> 4) << j;
        out[16 + i] = (uint8_t)high;
    }
    pack_nibbles(codes, out + 48);
}

static void pack_q2_k(const uint8_t *codes, const float *s, const float *m, uint16_t d, uint16_t dmin, uint8_t *out) {
    for (int j = 0; j < LANES; ++j) out[j] = (uint8_t)((int)s[j] | (int)m[j] << 4);
    for (int h = 0; h < 2; ++h)
        for (int i = 0; i < 32; ++i) {
            const uint8_t *q = codes + 128 * h + i;
            out[16 + 32 * h + i] = (uint8_t)(q[0] | q[32] << 2 | q[64] << 4 | q[96] << 6);
        }
    u16_store(out + 80, d);
    u16_store(out + 82, dmin);
}

/* The super-block in lanes from .. from + group - 1 of a solution: real scales, codes, bytes. */
typedef void (*packer)(const uint8_t *codes, const float *s, const float *m, uint16_t d, uint16_t dmin, uint8_t *out);
GT_INLINE void write_block(const float *x, const solution *a, float power, int from, shape f, packer pack, uint8_t *out) {
    uint8_t codes[SUPER];
    float s[LANES], m[LANES], d = a->d[from] * power, dmin = a->dmin[from] * power;
    for (int j = 0; j < f.group; ++j) {
        s[j] = d * a->s[from + j];
        m[j] = dmin * a->m[from + j];
    }
    round_codes(x, s, m, f.rows, f.levels, codes);
    pack(codes, a->s + from, a->m + from, f16_from_scale(d), f16_from_scale(dmin), out);
}

GT_INLINE void encode_row(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt, const plan *plans,
                          shape f, float top, packer pack, int bytes) {
    const int batch = f.rows * LANES;
    for (int64_t i = 0; i < n; i += batch) {
        const float *xs = x + i, *ws = w ? w + i : NULL;
        float padded_x[ROWS * LANES], padded_w[ROWS * LANES];
        int blocks = (int)(n - i < batch ? n - i : batch) / SUPER;
        if (blocks * SUPER < batch) {
            for (int k = 0; k < batch; ++k) {
                padded_x[k] = k < SUPER ? xs[k] : 0.0f;
                padded_w[k] = k < SUPER && w ? ws[k] : 1.0f;
            }
            xs = padded_x;
            ws = w ? padded_w : NULL;
        }
        tile t;
        solution best;
        fill_tile(&t, xs, ws, f, opt->objective);
        choose_scales(&t, f, top, &plans[opt->effort], &best);
        for (int k = 0; k < blocks; ++k, out += bytes)
            write_block(xs + k * SUPER, &best, t.power[k * f.group], k * f.group, f, pack, out);
    }
}

#define ENCODER(type, TYPE, rows, levels, top, bytes)                                                                \
    static void encode_##type(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {      \
        const shape f = {rows, SUPER / rows, levels, 0};                                                             \
        encode_row(x, w, n, out, opt, TYPE, f, top, pack_##type, bytes);                                             \
    }
ENCODER(q4_k, Q4_K, 32, 15, 63.0f, 144)
ENCODER(q5_k, Q5_K, 32, 31, 63.0f, 176)
ENCODER(q2_k, Q2_K, 16, 3, 15.0f, 84)

const gt_codec GT_FN(gt_kquants_affine)[] = {{12, SUPER, 144, 0, encode_q4_k, NULL},
                                             {13, SUPER, 176, 0, encode_q5_k, NULL},
                                             {10, SUPER, 84, 0, encode_q2_k, NULL},
                                             {0}};
