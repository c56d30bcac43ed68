/* Encoders of IQ3_XXS and IQ3_S: super-blocks of 256 weights, a scale for every 32, a codebook for every four.
 *
 * A weight is d (2 c + 1) times a level times a sign; d is a binary16, c a code of four bits for 32 weights, and the
 * levels of four weights are a row of a codebook: of 512 rows of the levels 1, 3 .. 15 in IQ3_S, of 256 rows of
 * 1, 3 .. 13, 15.5 in IQ3_XXS (in its decoder 4 .. 62, times d (2 c + 1) / 4).
 *
 *   IQ3_S    110 bytes: d; 64 rows (lower eight bits); 8 bytes with bit 8 of eight rows each; 32 bytes of signs;
 *            8 nibbles c, the lower one of a byte first
 *   IQ3_XXS   98 bytes: d; 64 rows; per 32 weights a word of 4 * 7 bits of signs, and c on top. The eighth weight's
 *            sign makes the number of minus signs even
 *
 * The method is that of grid_search.h and grid_search.c, the scan in integers that of grid_scan.h. What is special in
 * IQ3_XXS: eight weights with an odd number of minus signs must have one wrong sign, and they are two groups. So each
 * group's least cost is found without and with one wrong sign, and the cheaper of right + wrong and wrong + right is
 * taken; rows, flip, and which group has it are the optimum of all together, not one after the other.
 *
 * What the reference does instead: it searches neighbours of the rounded weights with sqrt(w) for w, takes 15.5 to be
 * 15, flips the sign of the least w x^2 before it looks for rows, tries 19 or 31 scales per 32 weights and then never
 * looks at rows again, gives the largest scale the code 15 and multiplies d by a constant; and after 32 zeros its IQ3_S
 * writes rows to the wrong place.
 *
 * Error in proportion to the reference's (rel_wmse with importance, rel_mse without, mean over the golden sets), and
 * millions of weights a second on one core (Zen 4, AVX2 / AVX-512) beside the reference's there:
 *
 *                 IQ3_S                                 IQ3_XXS
 *                 with   without  speed                 with   without  speed
 *     reference   1      1       3.5                    1      1       2.1
 *     fast        0.837  0.584   54 / 62                0.867  0.599   25 / 27
 *     default     0.810  0.576   26 / 29                0.842  0.592   14 / 15
 *     best        0.807  0.575   4.2 / 5.1              0.837  0.591   2.3 / 2.3
 *
 * The default's plan is where more candidates stop to pay: twice as many scales lower the error by 0.002 of itself. A
 * coarser scan loses at once (six scales instead of fourteen: 0.015), a window of one code instead of three 0.01.
 * "best" is the floor of this method: four times as many starts, each with all codes in reach, win 0.001 more. */
#include "grid_scan.h"
#include "grids.h"

#define GROUPS 8 /* groups of four weights in a sub-block of 32 */

static void scan_iq3_s(const grid_tile *t, const float b[LANES], float error[LANES]) {
    for (int o = 0; o < LANES; o += VH) {
        scan_scales scales = scales_to_scan(t, b, o);
        scan_sums sums = {{{0}}};
        for (int g = 0; g < GROUPS; ++g) {
            scan_table plain, *table = &plain;
            vh best = VH_MOST;
            scan_group(t, 4 * g * LANES + o, &scales, 2, 8, ODD_LEVELS, table);
            GRID_IQ3_S_ROWS(SCAN, SCAN_AND)
            for (int u = 0; u < PARTS; ++u) sums.part[u] += vh_part(best, u);
        }
        scan_total(t, &sums, o, error);
    }
}

static void cost_iq3_s(const grid_tile *t, const float b[LANES], float error[LANES]) {
    for (int o = 0; o < LANES; o += VW) {
        vf level[8], total = {0};
        scaled_levels(vf_load(b + o), 8, ODD_LEVELS, level);
        for (int g = 0; g < GROUPS; ++g) {
            int at = 4 * g * LANES + o;
            group_table plain, *table = &plain;
            vf best = vf_set1(ABOVE_ALL);
            group_costs(t->x + at, t->w + at, level, 2, 8, table);
            GRID_IQ3_S_ROWS(LEAST, AND)
            total += best;
        }
        vf_store(error + o, total);
    }
}

static void fit_iq3_s(const grid_tile *t, const float b[LANES], grid_pick *pick) {
    for (int o = 0; o < LANES; o += VW) {
        vf level[8];
        moments sums = {{0}, {0}};
        scaled_levels(vf_load(b + o), 8, ODD_LEVELS, level);
        for (int g = 0; g < GROUPS; ++g) {
            int at = 4 * g * LANES + o;
            group_table plain, *table = &plain;
            found_row found = NOTHING_FOUND;
            group_costs(t->x + at, t->w + at, level, 2, 8, table);
            number_points(table->first, 64);
            GRID_IQ3_S_ROWS(FIND, AND)
            finish_group(t->x + at, t->w + at, 2, 8, ODD_LEVELS, &found, 0, g, o, &sums, pick);
        }
        vf_store(pick->xl + o, sums.xl);
        vf_store(pick->ll + o, sums.ll);
    }
}

/* Two groups share their signs: the least cost of one, and the least with one wrong sign. */
typedef struct {
    vf right, wrong;
} two_costs;

GT_INLINE two_costs costs_iq3_xxs(const grid_tile *t, int at, const vf *level, int numbered, group_table *table,
                                  group_table *wrong) {
    vf best = vf_set1(ABOVE_ALL), worse = best;
    group_costs(t->x + at, t->w + at, level, 2, 8, table);
    group_flipped(t->x + at, t->w + at, vi_set1(-1), level, 2, 8, table, wrong);
    if (numbered) {
        number_points(table->first, 64);
        number_points(wrong->first, 64);
    }
    GRID_IQ3_XXS_ROWS(LEAST_ODD, AND_ODD)
    return (two_costs){best, worse};
}

static void scan_iq3_xxs(const grid_tile *t, const float b[LANES], float error[LANES]) {
    for (int o = 0; o < LANES; o += VH) {
        scan_scales scales = scales_to_scan(t, b, o);
        scan_sums sums = {{{0}}};
        vh more = {0};
        for (int g = 0; g < GROUPS; ++g) {
            scan_table plain, flipped, *table = &plain, *wrong = &flipped;
            vh best = VH_MOST, worse = best;
            scan_group(t, 4 * g * LANES + o, &scales, 2, 8, IQ3_XXS_LEVELS, table);
            scan_group_flipped(t, 4 * g * LANES + o, &scales, NULL, 2, 8, IQ3_XXS_LEVELS, table, wrong);
            GRID_IQ3_XXS_ROWS(SCAN_ODD, SCAN_AND_ODD)
            more = g % 2 ? vh_min(more, worse - best) : worse - best;
            for (int u = 0; u < PARTS; ++u) {
                sums.part[u] += vh_part(best, u);
                if (g % 2) sums.part[u] += vi_load(t->odd + g / 2 * LANES + o + u * VW) & vh_part(more, u);
            }
        }
        scan_total(t, &sums, o, error);
    }
}

static void cost_iq3_xxs(const grid_tile *t, const float b[LANES], float error[LANES]) {
    for (int o = 0; o < LANES; o += VW) {
        vf level[8], total = {0};
        scaled_levels(vf_load(b + o), 8, IQ3_XXS_LEVELS, level);
        two_costs last = {{0}, {0}};
        for (int g = 0; g < GROUPS; ++g) {
            group_table plain, flipped;
            two_costs now = costs_iq3_xxs(t, 4 * g * LANES + o, level, 0, &plain, &flipped);
            if (g % 2) {
                vi odd = vi_load(t->odd + g / 2 * LANES + o);
                vf wrong = vf_min(last.wrong + now.right, last.right + now.wrong);
                total += vf_select(odd, wrong, last.right + now.right);
            }
            last = now;
        }
        vf_store(error + o, total);
    }
}

static void fit_iq3_xxs(const grid_tile *t, const float b[LANES], grid_pick *pick) {
    for (int o = 0; o < LANES; o += VW) {
        vf level[8];
        moments sums = {{0}, {0}};
        scaled_levels(vf_load(b + o), 8, IQ3_XXS_LEVELS, level);
        for (int g = 0; g < GROUPS; g += 2) {
            group_table plain[2], flipped[2];
            two_costs costs[2];
            for (int h = 0; h < 2; ++h)
                costs[h] = costs_iq3_xxs(t, 4 * (g + h) * LANES + o, level, 1, &plain[h], &flipped[h]);
            vi first = costs[0].wrong + costs[1].right < costs[0].right + costs[1].wrong;
            for (int h = 0; h < 2; ++h) {
                int at = 4 * (g + h) * LANES + o;
                group_table *table = &plain[h], *wrong = &flipped[h];
                vi odd = vi_load(t->odd + g / 2 * LANES + o) & (h ? ~first : first);
                found_row found = NOTHING_FOUND;
                GRID_IQ3_XXS_ROWS(FIND_ODD, AND_ODD)
                finish_group(t->x + at, t->w + at, 2, 8, IQ3_XXS_LEVELS, &found, 1, g + h, o, &sums, pick);
            }
        }
        vf_store(pick->xl + o, sums.xl);
        vf_store(pick->ll + o, sums.ll);
    }
}

static const grid_type IQ3_S_TYPE = {32, 15, cost_iq3_s, fit_iq3_s, 0x1p-17f};
static const grid_type IQ3_XXS_TYPE = {32, 15, cost_iq3_xxs, fit_iq3_xxs, 0x1p-17f};

static const grid_plan IQ3_S[3] = {
    {0.049f, 0.008f, 6, 0.9f, 0.02f, 16, 0, 1, 0, 0, 0, 0, 0},
    {0.045f, 0.004f, 14, 0.9f, 0.015f, 24, -1, 3, 0, 0, 0, 0, 0},
    {0.035f, 0.002f, 45, 0.8f, 0.01f, 64, -2, 5, 11, 0.9f, 0.02f, -1, 3}};
static const grid_plan IQ3_XXS[3] = {
    {0.049f, 0.008f, 6, 0.9f, 0.02f, 16, 0, 1, 0, 0, 0, 0, 0},
    {0.045f, 0.005f, 11, 0.9f, 0.015f, 24, -1, 3, 0, 0, 0, 0, 0},
    {0.035f, 0.002f, 45, 0.8f, 0.01f, 64, -2, 5, 11, 0.9f, 0.02f, -1, 3}};

static int row_of(const grid_pick *pick, int at, const uint16_t *rows) {
    int point = pick->point[at];
    return rows[(point >> 7) * 64 + (point & 127)];
}

static void pack_iq3_s(const grid_tile *t, const grid_pick *pick, const float c[LANES], int lane, float d,
                       uint8_t *out) {
    memset(out, 0, 110);
    u16_store(out, f16_from_scale(d));
    for (int j = 0; j < 8; ++j) {
        for (int g = 0; g < GROUPS; ++g) {
            int row = row_of(pick, g * LANES + lane + j, grid_iq3_s_row);
            out[2 + 8 * j + g] = (uint8_t)row;
            out[66 + j] |= (uint8_t)(row >> 8 << g);
        }
        for (int g = 0; g < 4; ++g) out[74 + 4 * j + g] = t->signs[g * LANES + lane + j];
        out[106 + j / 2] |= (uint8_t)((int)c[lane + j] << (4 * (j % 2)));
    }
}

static void pack_iq3_xxs(const grid_tile *t, const grid_pick *pick, const float c[LANES], int lane, float d,
                         uint8_t *out) {
    u16_store(out, f16_from_scale(d));
    for (int j = 0; j < 8; ++j) {
        uint32_t word = (uint32_t)c[lane + j] << 28;
        for (int g = 0; g < GROUPS; ++g)
            out[2 + 8 * j + g] = (uint8_t)row_of(pick, g * LANES + lane + j, grid_iq3_xxs_row);
        for (int g = 0; g < 4; ++g) {
            const uint8_t *wrong = pick->wrong + 2 * g * LANES + lane + j;
            unsigned signs = t->signs[g * LANES + lane + j] ^ (wrong[0] | wrong[LANES] << 4);
            word |= (signs & 127) << (7 * g);
        }
        u32_store(out + 66 + 4 * j, word);
    }
}

#define ENCODER(type, TYPE, n_bytes)                                                                             \
    static void encode_##type(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {   \
        for (int64_t i = 0; i < n; i += 2 * SUPER) {                                                              \
            int blocks = n - i < 2 * SUPER ? 1 : 2;                                                               \
            grid_tile t;                                                                                          \
            grid_solution s;                                                                                      \
            grid_pick pick;                                                                                       \
            GT_FN(gt_grid_fill)(&t, &TYPE##_TYPE, x + i, w ? w + i : NULL, blocks, opt->objective,                \
                                w ? 2.0f : 0.0f, 1);                                                              \
            GT_FN(gt_grid_choose)(&t, &TYPE##_TYPE, scan_##type, scan_##type, &TYPE[opt->effort], &s);            \
            GT_FN(gt_grid_round)(&t, &TYPE##_TYPE, &s, &pick);                                                    \
            for (int u = 0; u < blocks; ++u, out += n_bytes) pack_##type(&t, &pick, s.c, 8 * u, s.d[8 * u], out); \
        }                                                                                                         \
    }
ENCODER(iq3_xxs, IQ3_XXS, 98)
ENCODER(iq3_s, IQ3_S, 110)

const gt_codec GT_FN(gt_iq3)[] = {
    {18, SUPER, 98, 0, encode_iq3_xxs, NULL}, {21, SUPER, 110, 0, encode_iq3_s, NULL}, {0}};
