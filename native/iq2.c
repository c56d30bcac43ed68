/* Encoders of IQ2_XXS, IQ2_XS and IQ2_S: super-blocks of 256 weights, a codebook for every eight.
 *
 * A weight is d (2 c + 1) times 1, 3.125 or 5.375, with a sign: d the super-block's binary16, c of four bits for every 32
 * (XXS) or 16 weights. Eight weights' levels are a row of a codebook of 256 (XXS), 512 (XS) or 1024 rows (S). Signs are
 * free in S; in XXS and XS seven of eight are stored and the number of minus signs is even.
 *
 *     XXS  66 bytes: d, then for each 32 weights 4 rows and a word: 4 x 7 signs, c in the top four bits
 *     XS   74 bytes: d, 32 words of row | signs << 9, 8 bytes of two c each
 *     S    82 bytes: d, 32 low bytes of rows, 32 bytes of signs, 8 bytes of the rows' bits 8 and 9, 8 bytes of c
 *
 * The search is that of grid_search.h with halves of four weights, 81 points each: the row of least error is found
 * exactly, in XXS and XS together with the weight whose sign is wrong. A sub-block of 16 makes a tile one super-block.
 * The scan for a sub-block's own scale is in integers (grid_scan.h): half again as fast, and no worse.
 *
 * The reference searches with levels 1, 3, 5 though 1, 3.125, 5.375 are decoded; rounds first and then looks among listed
 * neighbours, with the roots of the weights; turns the sign of the least w x^2 before it knows the row; tries 13 or 19
 * scales; never picks rows again for the scales that are stored; and takes d as the largest scale through 31, times
 * 0.9875 in S. Its error on the golden sets with an importance is 1; ours, and the speed as a multiple of its speed
 * (AVX-512, AVX2, SSE2; one core):
 *
 *              fast                      default                   best
 *     XXS      0.777  18x  16x  7x       0.766   7.5x  7.2x  3.5x  0.765  1.9x
 *     XS       0.779  28x  26x  12x      0.764  12.4x 11.5x  5.5x  0.763  3.3x
 *     S        0.825  17x  15x  8x       0.806   8.2x  7.7x  4.0x  0.805  2.2x    (without importance 0.717)
 *
 * On the 84 matrices of a small model with its own importances it is 0.878, 0.875 and 0.896, none above 0.916.
 *
 * What was tried, on other rows (normal, Student's t with 4 degrees, columns of different scale; figures of XS):
 * - Above all the scan for the own scale matters. 6, 8, 12, 16, 24, 52 steps: 0.781, 0.774, 0.768, 0.7663, 0.7657,
 *   0.7654 with the nearest code alone. Normal rows gain by fine steps, heavy tails by the narrow end, below 0.08 of the
 *   largest weight. From 16 steps to 24 costs a third of the speed for 0.0003 to 0.0006.
 * - Three codes instead of the nearest alone: 0.010 after 6 steps, 0.0006 after 16; five: 0.0001.
 * - Other d around the one that the parabolas give: 0.0002. Rows and d once more, or twice: nothing. So d, codes, rows
 *   and signs are about as good as they get for this format and measure, and there the search stops.
 * A sub-block of equal magnitudes would need a scale as wide as its weights in XXS, whose codebook has no row of eight
 * equal high levels; the scan does not go there. */
#include "grid_scan.h"
#include "grids.h"

#define FOURS 4, 3 /* a half: four weights of three levels */
#define POINTS 81

/* Where signs come in even numbers the tables of one wrong sign hold, in lanes that need none, the plain costs: then
 * the least of both ways is right for every lane. */
#define LEAST_EITHER_PAIR LEAST_ODD_PAIR
#define LEAST_EITHER(s, f, rest)                                                                                  \
    {                                                                                                             \
        vf m = table->first[f], n = wrong->first[f];                                                              \
        rest best = vf_min(best, vf_min(table->second[s] + n, wrong->second[s] + m));                             \
    }
#define SCAN_EITHER_PAIR SCAN_ODD_PAIR
#define SCAN_EITHER(s, f, rest)                                                                                   \
    {                                                                                                             \
        vh m = table->first[f], n = wrong->first[f];                                                              \
        rest best = vh_min(best, vh_min(vh_add(table->second[s], n), vh_add(wrong->second[s], m)));               \
    }

#define PARITY_TYPE(type, TYPE, GROUPS)                                                                           \
    static void scan_##type(const grid_tile *t, const float b[LANES], float error[LANES]) {                       \
        for (int o = 0; o < LANES; o += VH) {                                                                     \
            scan_scales scales = scales_to_scan(t, b, o);                                                         \
            scan_sums sums = {{{0}}};                                                                             \
            for (int g = 0; g < GROUPS; ++g) {                                                                    \
                int at = 8 * g * LANES + o;                                                                       \
                scan_table plain, flipped, *table = &plain, *wrong = &flipped;                                    \
                vh best = VH_MOST;                                                                                \
                scan_group(t, at, &scales, FOURS, IQ2_LEVELS, table);                                             \
                scan_group_flipped(t, at, &scales, t->odd + g * LANES + o, FOURS, IQ2_LEVELS, table, wrong);      \
                GRID_##TYPE##_ROWS(SCAN_EITHER, SCAN_AND_ODD)                                                     \
                for (int u = 0; u < PARTS; ++u) sums.part[u] += vh_part(best, u);                                 \
            }                                                                                                     \
            scan_total(t, &sums, o, error);                                                                       \
        }                                                                                                         \
    }                                                                                                             \
    static void cost_##type(const grid_tile *t, const float b[LANES], float error[LANES]) {                       \
        for (int o = 0; o < LANES; o += VW) {                                                                     \
            vf level[3], total = {0};                                                                             \
            scaled_levels(vf_load(b + o), 3, IQ2_LEVELS, level);                                                  \
            for (int g = 0; g < GROUPS; ++g) {                                                                    \
                int at = 8 * g * LANES + o;                                                                       \
                group_table plain, flipped, *table = &plain, *wrong = &flipped;                                   \
                vf best = vf_set1(ABOVE_ALL);                                                                     \
                vi odd = vi_load(t->odd + g * LANES + o);                                                         \
                group_costs(t->x + at, t->w + at, level, FOURS, table);                                           \
                group_flipped(t->x + at, t->w + at, odd, level, FOURS, table, wrong);                             \
                GRID_##TYPE##_ROWS(LEAST_EITHER, AND_ODD)                                                         \
                total += best;                                                                                    \
            }                                                                                                     \
            vf_store(error + o, total);                                                                           \
        }                                                                                                         \
    }                                                                                                             \
    static void fit_##type(const grid_tile *t, const float b[LANES], grid_pick *pick) {                           \
        for (int o = 0; o < LANES; o += VW) {                                                                     \
            vf level[3];                                                                                          \
            moments sums = {{0}, {0}};                                                                            \
            scaled_levels(vf_load(b + o), 3, IQ2_LEVELS, level);                                                  \
            for (int g = 0; g < GROUPS; ++g) {                                                                    \
                int at = 8 * g * LANES + o;                                                                       \
                vi odd = vi_load(t->odd + g * LANES + o);                                                         \
                group_table plain, flipped, *table = &plain, *wrong = &flipped;                                   \
                found_row found = NOTHING_FOUND;                                                                  \
                group_costs(t->x + at, t->w + at, level, FOURS, table);                                           \
                group_flipped(t->x + at, t->w + at, odd, level, FOURS, table, wrong);                             \
                number_points(table->first, POINTS);                                                              \
                number_points(wrong->first, POINTS);                                                              \
                GRID_##TYPE##_ROWS(FIND_ODD, AND_ODD)                                                             \
                finish_group(t->x + at, t->w + at, FOURS, IQ2_LEVELS, &found, 1, g, o, &sums, pick);              \
            }                                                                                                     \
            vf_store(pick->xl + o, sums.xl);                                                                      \
            vf_store(pick->ll + o, sums.ll);                                                                      \
        }                                                                                                         \
    }
PARITY_TYPE(iq2_xxs, IQ2_XXS, 4)
PARITY_TYPE(iq2_xs, IQ2_XS, 2)

static void scan_iq2_s(const grid_tile *t, const float b[LANES], float error[LANES]) {
    for (int o = 0; o < LANES; o += VH) {
        scan_scales scales = scales_to_scan(t, b, o);
        scan_sums sums = {{{0}}};
        for (int g = 0; g < 2; ++g) {
            scan_table plain, *table = &plain;
            vh best = VH_MOST;
            scan_group(t, 8 * g * LANES + o, &scales, FOURS, IQ2_LEVELS, table);
            GRID_IQ2_S_ROWS(SCAN, SCAN_AND)
            for (int u = 0; u < PARTS; ++u) sums.part[u] += vh_part(best, u);
        }
        scan_total(t, &sums, o, error);
    }
}

static void cost_iq2_s(const grid_tile *t, const float b[LANES], float error[LANES]) {
    for (int o = 0; o < LANES; o += VW) {
        vf level[3], total = {0};
        scaled_levels(vf_load(b + o), 3, IQ2_LEVELS, level);
        for (int g = 0; g < 2; ++g) {
            int at = 8 * g * LANES + o;
            group_table plain, *table = &plain;
            vf best = vf_set1(ABOVE_ALL);
            group_costs(t->x + at, t->w + at, level, FOURS, table);
            GRID_IQ2_S_ROWS(LEAST, AND)
            total += best;
        }
        vf_store(error + o, total);
    }
}

static void fit_iq2_s(const grid_tile *t, const float b[LANES], grid_pick *pick) {
    for (int o = 0; o < LANES; o += VW) {
        vf level[3];
        moments sums = {{0}, {0}};
        scaled_levels(vf_load(b + o), 3, IQ2_LEVELS, level);
        for (int g = 0; g < 2; ++g) {
            int at = 8 * g * LANES + o;
            group_table plain, *table = &plain;
            found_row found = NOTHING_FOUND;
            group_costs(t->x + at, t->w + at, level, FOURS, table);
            number_points(table->first, POINTS);
            GRID_IQ2_S_ROWS(FIND, AND)
            finish_group(t->x + at, t->w + at, FOURS, IQ2_LEVELS, &found, 0, g, o, &sums, pick);
        }
        vf_store(pick->xl + o, sums.xl);
        vf_store(pick->ll + o, sums.ll);
    }
}

static const grid_type IQ2_XXS_TYPE = {32, 15, cost_iq2_xxs, fit_iq2_xxs, 0x1p-15f};
static const grid_type IQ2_XS_TYPE = {16, 15, cost_iq2_xs, fit_iq2_xs, 0x1p-15f};
static const grid_type IQ2_S_TYPE = {16, 15, cost_iq2_s, fit_iq2_s, 0x1p-15f};

static const grid_plan PLANS[3] = {
    {0.060f, 0.035f, 6, 0.9f, 0.02f, 16, 0, 1, 0, 0, 0, 0, 0},
    {0.050f, 0.015f, 16, 0.9f, 0.02f, 16, -1, 3, 0, 0, 0, 0, 0},
    {0.040f, 0.005f, 52, 0.8f, 0.01f, 64, -2, 5, 5, 0.94f, 0.03f, -1, 3}};

/* The row of a group in a lane, and its signs with the wrong one turned. */
static unsigned row_of(const grid_pick *pick, int at, const uint16_t *rows) {
    int point = pick->point[at];
    return rows[(point >> 7) * POINTS + (point & 127)];
}
static unsigned signs_of(const grid_tile *t, const grid_pick *pick, int at) { return t->signs[at] ^ pick->wrong[at]; }

static void pack_iq2_xxs(const grid_tile *t, const grid_pick *pick, const float c[LANES], int lane, float d,
                         uint8_t *out) {
    u16_store(out, f16_from_scale(d));
    for (int j = 0; j < 8; ++j) {
        uint32_t word = (uint32_t)c[lane + j] << 28;
        for (int g = 0; g < 4; ++g) {
            int at = g * LANES + lane + j;
            out[2 + 8 * j + g] = (uint8_t)row_of(pick, at, grid_iq2_xxs_row);
            word |= (signs_of(t, pick, at) & 127) << (7 * g);
        }
        u32_store(out + 6 + 8 * j, word);
    }
}

/* Two sub-blocks' codes to a byte. */
static void pack_codes(const float c[LANES], uint8_t *out) {
    for (int j = 0; j < LANES; j += 2) out[j / 2] = (uint8_t)((int)c[j] | (int)c[j + 1] << 4);
}

static void pack_iq2_xs(const grid_tile *t, const grid_pick *pick, const float c[LANES], int lane, float d,
                        uint8_t *out) {
    (void)lane; /* a tile is one super-block */
    u16_store(out, f16_from_scale(d));
    for (int k = 0; k < 32; ++k) {
        int at = k % 2 * LANES + k / 2;
        unsigned row = row_of(pick, at, grid_iq2_xs_row), signs = signs_of(t, pick, at) & 127;
        u16_store(out + 2 + 2 * k, (uint16_t)(row | signs << 9));
    }
    pack_codes(c, out + 66);
}

static void pack_iq2_s(const grid_tile *t, const grid_pick *pick, const float c[LANES], int lane, float d,
                       uint8_t *out) {
    (void)lane;
    memset(out, 0, 82);
    u16_store(out, f16_from_scale(d));
    for (int k = 0; k < 32; ++k) {
        int at = k % 2 * LANES + k / 2;
        unsigned row = row_of(pick, at, grid_iq2_s_row);
        out[2 + k] = (uint8_t)row;
        out[34 + k] = t->signs[at];
        out[66 + k / 4] |= (uint8_t)(row >> 8 << (2 * (k % 4)));
    }
    pack_codes(c, out + 74);
}

/* The reference's weights have `factor` times the mean of x^2 with an importance, `alone` without one. */
#define ENCODER(type, TYPE, n_bytes, factor, alone)                                                               \
    static void encode_##type(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {   \
        int most = TYPE##_TYPE.sub * LANES / SUPER;                                                               \
        for (int64_t i = 0; i < n; i += most * SUPER) {                                                           \
            int blocks = n - i < most * SUPER ? 1 : most;                                                         \
            grid_tile t;                                                                                          \
            grid_solution s;                                                                                      \
            grid_pick pick;                                                                                       \
            GT_FN(gt_grid_fill)(&t, &TYPE##_TYPE, x + i, w ? w + i : NULL, blocks, opt->objective,                \
                                w ? factor : alone, 1);                                                           \
            GT_FN(gt_grid_choose)(&t, &TYPE##_TYPE, scan_##type, scan_##type, &PLANS[opt->effort], &s);           \
            GT_FN(gt_grid_round)(&t, &TYPE##_TYPE, &s, &pick);                                                    \
            for (int u = 0; u < blocks; ++u, out += n_bytes) pack_##type(&t, &pick, s.c, 8 * u, s.d[8 * u], out); \
        }                                                                                                         \
    }
ENCODER(iq2_xxs, IQ2_XXS, 66, 1.0f, 0.0f)
ENCODER(iq2_xs, IQ2_XS, 74, 1.0f, 0.0f)
ENCODER(iq2_s, IQ2_S, 82, 2.0f, 0.5f)

const gt_codec GT_FN(gt_iq2)[] = {{16, SUPER, 66, 0, encode_iq2_xxs, NULL},
                                  {17, SUPER, 74, 0, encode_iq2_xs, NULL},
                                  {22, SUPER, 82, 0, encode_iq2_s, NULL},
                                  {0}};
