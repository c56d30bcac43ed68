/* Encoders of IQ1_S and IQ1_M: rows of eight levels -1, 0, 1 from a codebook of 2048, all an eighth higher or lower.
 *
 * A super-block of 256 has a binary16 d; a sub-block (32 weights in IQ1_S, 16 in IQ1_M) the scale b = d (2 c + 1), c in
 * 0 .. 7; each group of eight decodes to b (level + 1/8) or b (level - 1/8). IQ1_S stores one shift for the sub-block:
 *   50 bytes: d, 32 low bytes of row numbers, 8 words: four times 3 high bits, code << 12, shift << 15 (1: down).
 * IQ1_M has one for each group, and d in the top nibbles of its scale words:
 *   56 bytes: 32 low bytes, 16 bytes of two nibbles: 3 high bits and the shift, 4 words of four codes of 3 bits.
 *
 * The codebook has the signs, so x keeps its own; a half of four weights has 81 points, and the search of grid_search.h
 * finds the best of the 2048 rows, exactly, with about 1200 AVX-512 instructions for sixteen groups, one scale and one
 * shift. Most of the search gets by without the codebook: with every row allowed a weight's error is the least of |v|
 * and ||v| - b|, v = x -+ b / 8: eight operations, 64 for sixteen groups. This
 *   - scans for each sub-block's real scale: the curve lies below the true one, but its valley is in the same place;
 *   - picks the shift when codes are compared, so that only one of the two is searched for in the codebook.
 * Codes are compared by exact errors, and the rows of the result, and its shifts, are the best there are.
 *
 * The reference splits the sorted weights of a sub-block into -1, 0, 1 in every possible way, rounds the best split to
 * the codebook group by group, rounds the scales, never picks rows again, and makes d 1.125 (1.1125) times too large.
 * Error against its own on the golden rows, and million weights a second on one core (AVX2, AVX-512):
 *             with an importance        without    speed with an importance
 *             fast    default  best     default    reference   fast    default  best
 *   IQ1_S     0.789   0.787    0.786               7.0         69 79   41 46    9 9
 *   IQ1_M     0.808   0.803    0.802    0.558      7.3         63 73   36 41    8 9
 * The default goes no further because little is left: with the shifts chosen in the codebook wherever codes are
 * compared it would gain 0.0005 and lose a third of its speed, with a scan through the codebook 0.001 and four fifths.
 * A sub-block of zeros gets the row of zeros and the code 0, that is d / 8, where the reference stores -7/8 d. */
#include "grid_search.h"
#include "grids.h"

#define SHIFT 0.125f
#define MOST_GROUPS 4 /* groups of eight weights in a sub-block of IQ1_S; two in IQ1_M */

/* Whether a sub-block's group g is the last that has its shift. */
#define ENDS_SHIFT(g, groups) ((groups) == 2 || (g) == (groups) - 1)

/* The least cost of one group over all rows. */
static vf least_cost(const float *x, const float *w, const vf level[3]) {
    group_table all, *table = &all;
    vf best = vf_set1(ABOVE_ALL);
    group_costs(x, w, level, 4, 3, table);
    GRID_IQ1_S_ROWS(LEAST, AND)
    return best;
}

/* And the row that has it. */
static found_row best_row(const float *x, const float *w, const vf level[3]) {
    group_table all, *table = &all;
    found_row found = NOTHING_FOUND;
    group_costs(x, w, level, 4, 3, table);
    number_points(table->first, ALL_HALVES);
    GRID_IQ1_S_ROWS(FIND, AND)
    return found;
}

/* The levels of a point's digits at the scale b. */
GT_INLINE void shifted_levels(vf b, vf shift, vf level[3]) {
    for (int t = 0; t < 3; ++t) level[t] = b * (shift + level_at(t, TERNARY_LEVELS));
}

GT_INLINE vf shift_where(vi down) { return vf_select(down, vf_set1(-SHIFT), vf_set1(SHIFT)); }

/* ---- without the codebook ---- */

/* The errors of a group with every row allowed, for the shift up and the one down. */
typedef struct {
    vf up, down;
} shift_costs;

GT_INLINE void add_free_costs(const float *x, const float *w, vf b, shift_costs *sum) {
    vf shift = b * SHIFT;
    for (int i = 0; i < 8; ++i) {
        vf v = vf_load(x + i * LANES), weight = vf_load(w + i * LANES);
        vf up = vf_abs(v - shift), down = vf_abs(v + shift);
        up = vf_min(up, vf_abs(up - b));
        down = vf_min(down, vf_abs(down - b));
        sum->up += (weight * up) * up;
        sum->down += (weight * down) * down;
    }
}

GT_INLINE void scan(const grid_tile *t, const float *b, int groups, float *error) {
    for (int o = 0; o < LANES; o += VW) {
        vf total = {0};
        shift_costs sum = {{0}, {0}};
        for (int g = 0; g < groups; ++g) {
            add_free_costs(t->x + 8 * g * LANES + o, t->w + 8 * g * LANES + o, vf_load(b + o), &sum);
            if (!ENDS_SHIFT(g, groups)) continue;
            total += vf_min(sum.up, sum.down);
            sum = (shift_costs){{0}, {0}};
        }
        vf_store(error + o, total);
    }
}

/* The shifts that would be best with every row allowed. */
GT_INLINE void choose_shifts(const grid_tile *t, vf b, int groups, int o, vf shift[MOST_GROUPS]) {
    shift_costs sum = {{0}, {0}};
    for (int g = 0; g < groups; ++g) {
        add_free_costs(t->x + 8 * g * LANES + o, t->w + 8 * g * LANES + o, b, &sum);
        if (!ENDS_SHIFT(g, groups)) continue;
        for (int h = groups == 2 ? g : 0; h <= g; ++h) shift[h] = shift_where(sum.down < sum.up);
        sum = (shift_costs){{0}, {0}};
    }
}

/* ---- with it ---- */

/* The error with these shifts, which are nearly always the best ones. */
GT_INLINE void compare_codes(const grid_tile *t, const float *b, int groups, float *error) {
    for (int o = 0; o < LANES; o += VW) {
        vf shift[MOST_GROUPS] = {{0}}, total = {0};
        choose_shifts(t, vf_load(b + o), groups, o, shift);
        for (int g = 0; g < groups; ++g) {
            vf level[3];
            shifted_levels(vf_load(b + o), shift[g], level);
            total += least_cost(t->x + 8 * g * LANES + o, t->w + 8 * g * LANES + o, level);
        }
        vf_store(error + o, total);
    }
}

/* The error with the best shifts. */
GT_INLINE void cost(const grid_tile *t, const float *b, int groups, float *error) {
    for (int o = 0; o < LANES; o += VW) {
        vf total = {0}, up[3], down[3];
        shift_costs sum = {{0}, {0}};
        shifted_levels(vf_load(b + o), vf_set1(SHIFT), up);
        shifted_levels(vf_load(b + o), vf_set1(-SHIFT), down);
        for (int g = 0; g < groups; ++g) {
            sum.up += least_cost(t->x + 8 * g * LANES + o, t->w + 8 * g * LANES + o, up);
            sum.down += least_cost(t->x + 8 * g * LANES + o, t->w + 8 * g * LANES + o, down);
            if (!ENDS_SHIFT(g, groups)) continue;
            total += vf_min(sum.up, sum.down);
            sum = (shift_costs){{0}, {0}};
        }
        vf_store(error + o, total);
    }
}

/* Writes down a group's row and shift, and adds up what its levels contribute. */
GT_INLINE void finish(const grid_tile *t, vi first, vi second, vf shift, int g, int o, moments *sums,
                      grid_pick *pick) {
    vf level[8];
    levels_of_half(first, 4, 3, TERNARY_LEVELS, level);
    levels_of_half(second, 4, 3, TERNARY_LEVELS, level + 4);
    for (int i = 0; i < 8; ++i) {
        int at = (8 * g + i) * LANES + o;
        vf l = level[i] + shift, wl = vf_load(t->w + at) * l;
        sums->xl += wl * vf_load(t->x + at);
        sums->ll += wl * l;
    }
    for (int j = 0; j < VW; ++j) {
        pick->point[g * LANES + o + j] = (uint16_t)(first[j] | second[j] << 7);
        pick->wrong[g * LANES + o + j] = shift[j] < 0.0f;
    }
}

/* The best rows with either shift, and of these the better. */
GT_INLINE void fit(const grid_tile *t, const float *b, int groups, grid_pick *pick) {
    for (int o = 0; o < LANES; o += VW) {
        vf levels_up[3], levels_down[3];
        found_row up[MOST_GROUPS], down[MOST_GROUPS];
        shift_costs sum = {{0}, {0}};
        moments sums = {{0}, {0}};
        shifted_levels(vf_load(b + o), vf_set1(SHIFT), levels_up);
        shifted_levels(vf_load(b + o), vf_set1(-SHIFT), levels_down);
        for (int g = 0; g < groups; ++g) {
            const float *x = t->x + 8 * g * LANES + o, *w = t->w + 8 * g * LANES + o;
            up[g] = best_row(x, w, levels_up);
            down[g] = best_row(x, w, levels_down);
            sum.up += up[g].best;
            sum.down += down[g].best;
        }
        for (int g = 0; g < groups; ++g) {
            vi goes_down = groups == 2 ? down[g].best < up[g].best : sum.down < sum.up;
            vi first = vi_select(goes_down, down[g].first, up[g].first) & 127;
            vi second = vi_select(goes_down, down[g].second, up[g].second);
            finish(t, first, second, shift_where(goes_down), g, o, &sums, pick);
        }
        vf_store(pick->xl + o, sums.xl);
        vf_store(pick->ll + o, sums.ll);
    }
}

#define TYPE(type, sub)                                                                                              \
    static void scan_##type(const grid_tile *t, const float b[LANES], float e[LANES]) { scan(t, b, (sub) / 8, e); }  \
    static void codes_##type(const grid_tile *t, const float b[LANES], float e[LANES]) {                             \
        compare_codes(t, b, (sub) / 8, e);                                                                           \
    }                                                                                                                \
    static void cost_##type(const grid_tile *t, const float b[LANES], float e[LANES]) { cost(t, b, (sub) / 8, e); }  \
    static void fit_##type(const grid_tile *t, const float b[LANES], grid_pick *pick) { fit(t, b, (sub) / 8, pick); } \
    static const grid_type type = {(sub), 7, cost_##type, fit_##type, 1.0f};
TYPE(iq1_s, 32)
TYPE(iq1_m, 16)

static const grid_plan PLANS[3] = {{0.1f, 0.08f, 12, 0.8f, 0.02f, 16, 0, 1, 0, 0, 0, 0, 0},
                                   {0.1f, 0.06f, 16, 0.8f, 0.02f, 16, -1, 3, 0, 0, 0, 0, 0},
                                   {0.1f, 0.02f, 46, 0.7f, 0.01f, 48, -1, 3, 4, 0.9f, 0.05f, -1, 3}};

/* ---- bytes ---- */

/* The row of a group, and above it the bit of its shift. */
static int row_of(const grid_pick *pick, int at) {
    int point = pick->point[at];
    return grid_iq1_s_row[(point >> 7) * ALL_HALVES + (point & 127)] | pick->wrong[at] << 11;
}

static void pack_iq1_s(const grid_pick *pick, const float c[LANES], int lane, float d, uint8_t *out) {
    u16_store(out, f16_from_scale(d));
    for (int j = 0; j < 8; ++j) {
        int word = (int)c[lane + j] << 12;
        for (int g = 0; g < 4; ++g) {
            int row = row_of(pick, g * LANES + lane + j);
            out[2 + 4 * j + g] = (uint8_t)row;
            word |= (row >> 8 & 7) << (3 * g) | (row & 2048) << 4;
        }
        u16_store(out + 34 + 2 * j, (uint16_t)word);
    }
}

static void pack_iq1_m(const grid_pick *pick, const float c[LANES], int lane, float d, uint8_t *out) {
    (void)lane; /* a tile is one super-block */
    int half = f16_from_scale(d);
    for (int j = 0; j < LANES; ++j) {
        int row = row_of(pick, j), next = row_of(pick, LANES + j);
        out[2 * j] = (uint8_t)row;
        out[2 * j + 1] = (uint8_t)next;
        out[32 + j] = (uint8_t)(row >> 8 | next >> 8 << 4);
    }
    for (int k = 0; k < 4; ++k) {
        int word = (half >> (4 * k) & 15) << 12;
        for (int j = 0; j < 4; ++j) word |= (int)c[4 * k + j] << (3 * j);
        u16_store(out + 48 + 2 * k, (uint16_t)word);
    }
}

#define ENCODER(type, n_bytes)                                                                                     \
    static void encode_##type(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {    \
        int most = type.sub * LANES / SUPER;                                                                       \
        for (int64_t i = 0; i < n; i += most * SUPER) {                                                            \
            int blocks = n - i < most * SUPER ? 1 : most;                                                          \
            grid_tile t;                                                                                           \
            grid_solution s;                                                                                       \
            grid_pick pick;                                                                                        \
            GT_FN(gt_grid_fill)(&t, &type, x + i, w ? w + i : NULL, blocks, opt->objective, w ? 2.0f : 0.0f, 0);   \
            GT_FN(gt_grid_choose)(&t, &type, scan_##type, codes_##type, &PLANS[opt->effort], &s);                  \
            GT_FN(gt_grid_round)(&t, &type, &s, &pick);                                                            \
            for (int u = 0; u < blocks; ++u, out += n_bytes) pack_##type(&pick, s.c, 8 * u, s.d[8 * u], out);      \
        }                                                                                                          \
    }
ENCODER(iq1_s, 50)
ENCODER(iq1_m, 56)

const gt_codec GT_FN(gt_iq1)[] = {{19, SUPER, 50, 0, encode_iq1_s, NULL}, {29, SUPER, 56, 0, encode_iq1_m, NULL}, {0}};
