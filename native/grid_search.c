/* The search over scales that all grid types share: grid_search.h has the search over rows.
 *
 * First every sub-block looks for its own real scale: some candidates around its size, each with an exhaustive search
 * over rows, and through the three errors about the least one a parabola. Its vertex is the scale, its curvature says
 * how fast the error rises beside it; so d is chosen on these parabolas, over many candidates and at next to no cost,
 * where the reference always gives the largest scale the largest code. From then on only what can be stored is
 * measured: d as binary16 and codes in a window around each scale, with the rows searched again, for one d or for a few
 * around it. For the scales found the rows are chosen in float32, and for these rows d is once more the least-squares
 * one. (To go on, rows for the new d and d for the new rows, lowers the error of IQ3 by 0.0003 of itself, and costs a
 * tenth.)
 *
 * Comparisons between scales of one sub-block may be made in integers (grid_scan.h); `scan` is for these. */
#include "grid_search.h"

#define NO_ENERGY 0x1p-100f /* so little that it has no unit */
#define NARROW 0x1p-120f    /* the square of a distance that is too small to divide by */
/* Where the largest scale is that of weights that hardly matter, d is looked for as far below it as this. */
#define FAR_BELOW 0.7f
#define BELOW_STEP 0.8f
#define BELOW_COUNT 18
#define MUCH_BETTER 0.5f
#define OUTLIER 5.0f        /* a weight that is so many times the root mean square does not set the scale */

/* ---- the tile ---- */

/* The reference's weights: importance times the root of factor * mean(x^2) + x^2 over the super-block; without one, that
 * sum itself. */
static void weigh_as_reference(float *w, const float *x, int has_w, float factor) {
    float sums[LANES] = {0};
    for (int i = 0; i < SUPER; ++i) sums[i % LANES] += x[i] * x[i];
    float mean = sum16(sums) * (factor / SUPER);
    for (int i = 0; i < SUPER; i += VW) {
        vf v = vf_load(x + i), sum = mean + v * v;
        vf_store(w + i, vf_max(has_w ? vf_load(w + i) * vf_sqrt(sum) : sum, vf_set1(TINY_WEIGHT)));
    }
}

/* One super-block, as magnitudes of at most 2 or as signed values, and its weights; the power of two taken out. */
static float prepare(float *to, float *weights, const float *x, const float *w, int objective, float mean_factor) {
    vf most = {0};
    for (int i = 0; i < SUPER; i += VW) {
        vf v = within_far(vf_load(x + i));
        vf_store(to + i, v);
        most = vf_max(most, vf_abs(v));
    }
    vf power = power_of_two_of(vf_set1(vf_max_of(most))), inverse = inverse_power(power);
    for (int i = 0; i < SUPER; i += VW) {
        vf_store(to + i, vf_load(to + i) * inverse);
        vf_store(weights + i, w && objective != GT_MSE ? vf_load(w + i) : vf_set1(1.0f));
    }
    if (objective == GT_REF) weigh_as_reference(weights, to, w != NULL, mean_factor);
    return power[0];
}

/* The negative weights of each group of eight; their values become magnitudes. */
static void take_signs(grid_tile *t, float *x, int sub, int n) {
    for (int g = 0; g < n / 8; ++g) {
        int bits = 0, lane = 8 * g / sub, at = g % (sub / 8) * LANES + lane;
        for (int i = 0; i < 8; ++i) bits |= (int)(f_bits(x[8 * g + i]) >> 31) << i;
        t->signs[at] = (uint8_t)bits;
        t->odd[at] = -(__builtin_popcount((unsigned)bits) & 1);
    }
    for (int i = 0; i < n; i += VW) vf_store(x + i, vf_abs(vf_load(x + i)));
}

void GT_FN(gt_grid_fill)(grid_tile *t, const grid_type *type, const float *x, const float *w, int blocks, int objective,
                         float mean_factor, int has_signs) {
    float xs[TILE], ws[TILE];
    int n = type->sub * LANES;
    for (int b = 0; b < n / SUPER; ++b) {
        int at = b * SUPER;
        if (b < blocks)
            t->power[b] = prepare(xs + at, ws + at, x + at, w ? w + at : NULL, objective, mean_factor);
        else { /* the other lanes hold zeros */
            t->power[b] = 1.0f;
            for (int i = at; i < at + SUPER; ++i) xs[i] = 0.0f, ws[i] = 1.0f;
        }
    }
    if (has_signs) take_signs(t, xs, type->sub, n);
    transpose(xs, type->sub, type->sub, t->x);
    transpose(ws, type->sub, type->sub, t->w);
    for (int o = 0; o < LANES; o += VW) {
        vf xx = {0}, sum = {0}, most = {0};
        for (int i = 0; i < type->sub; ++i) {
            vf v = vf_load(t->x + i * LANES + o), weight = vf_load(t->w + i * LANES + o);
            xx += (weight * v) * v;
            sum += weight;
            most = vf_max(most, vf_abs(v));
        }
        vf_store(t->size + o, vf_min(most, vf_sqrt(xx / sum) * OUTLIER));
        vf_store(t->unit + o, xx * type->unit);
        vm some = vm_less(vf_set1(NO_ENERGY), xx);
        vf per_unit = vf_where(some, vf_set1(1.0f) / (vf_where(some, xx, vf_set1(1.0f)) * type->unit), (vf){0});
        for (int i = 0; i < type->sub; ++i)
            vf_store(t->root + i * LANES + o, vf_sqrt(vf_load(t->w + i * LANES + o) * per_unit));
    }
}

/* ---- the scales ---- */

/* What is known of each sub-block: the real scale of least error, and how fast the error rises beside it. */
typedef struct {
    float own[LANES], curve[LANES];
} __attribute__((aligned(64))) scales;

/* Sums over a super-block's lanes, in one order. */
static float sum_lanes(const float *p, int lanes) {
    if (lanes == LANES) return sum16(p);
    return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
}

/* The storable d nearest to d. */
static float storable(float d, float power) {
    float v = d * power;
    if (!(v > LEAST_SCALE)) v = LEAST_SCALE;
    return f16_to_float(f16_from_scale(v)) * (1.0f / power);
}

/* The errors of the three best neighbouring candidates of a lane. */
typedef struct {
    float before[LANES], least[LANES], after[LANES], b[LANES];
} __attribute__((aligned(64))) valley;

/* The vertex of the parabola through three errors, and its curvature. */
static void lowest_points(const valley *v, const grid_tile *t, float step, scales *s) {
    for (int j = 0; j < LANES; ++j) {
        float width = t->size[j] * step, bend = (v->before[j] - v->least[j]) + (v->after[j] - v->least[j]);
        float shift = bend > 0.0f ? 0.5f * (v->before[j] - v->after[j]) / bend : 0.0f;
        shift = shift > 1.0f ? 1.0f : shift < -1.0f ? -1.0f : shift;
        s->own[j] = v->b[j] + shift * width;
        float curve = width * width > NARROW && bend > 0.0f ? (0.5f * bend) / (width * width) : 0.0f;
        /* and no flatter than that: without a scale the error is several times the least */
        float own = s->own[j], whole = own * own, chord = whole > NARROW ? v->least[j] / whole : 0.0f;
        s->curve[j] = curve > chord ? curve : chord;
    }
}

static void first_scales(const grid_tile *t, grid_cost cost, const grid_plan *p, scales *s) {
    valley v;
    float window[3][LANES];
    for (int k = 0; k < p->count; ++k) {
        float b[LANES];
        for (int j = 0; j < LANES; ++j) b[j] = t->size[j] * (p->from + (float)k * p->step);
        float *error = window[k % 3], *last = window[(k + 2) % 3], *older = window[(k + 1) % 3];
        cost(t, b, error);
        for (int j = 0; k >= 2 && j < LANES; ++j)
            if (k == 2 || last[j] < v.least[j]) {
                v.before[j] = older[j];
                v.least[j] = last[j];
                v.after[j] = error[j];
                v.b[j] = t->size[j] * (p->from + (float)(k - 1) * p->step);
            }
    }
    lowest_points(&v, t, p->step, s);
}

/* The code that comes nearest to a scale of v times d. */
static float code_near(float v, int offset, int top) {
    float c = f_round((v - 1.0f) * 0.5f) + (float)offset;
    return c < 0.0f ? 0.0f : c > (float)top ? (float)top : c;
}

/* A d and the sum of the sub-blocks' parabolas there. */
typedef struct {
    float d, sum;
} fitting_d;

/* The better of `best` and d, with the nearest codes. */
static fitting_d better_d(fitting_d best, const scales *s, int from, int lanes, int top, float d) {
    float e[LANES], inverse = 1.0f / d;
    for (int j = 0; j < lanes; ++j) {
        float own = s->own[from + j], v = own * inverse;
        v = v < 64.0f ? v : 64.0f;
        float miss = d * (2.0f * code_near(v, 0, top) + 1.0f) - own;
        e[j] = (s->curve[from + j] * miss) * miss;
    }
    float sum = sum_lanes(e, lanes);
    return sum < best.sum ? (fitting_d){d, sum} : best;
}

/* The d for which the parabolas have the least sum: near the one that gives the largest scale the code top, or far
 * below it, where that scale belongs to weights that hardly matter. */
static float first_d(const scales *s, int from, int lanes, const grid_type *type, const grid_plan *p, float power) {
    float base = 0.0f;
    for (int j = from; j < from + lanes; ++j) base = s->own[j] > base ? s->own[j] : base;
    base /= (float)(2 * type->top + 1);
    fitting_d best = {0.0f, ABOVE_ALL};
    for (int again = 0; again < 2; ++again) {
        for (int k = 0; k < p->d_count; ++k)
            best = better_d(best, s, from, lanes, type->top,
                            storable(base * (p->d_from + (float)k * p->d_step), power));
        if (again) break;
        fitting_d lower = {best.d, best.sum * MUCH_BETTER};
        float below = base * FAR_BELOW;
        for (int k = 0; k < BELOW_COUNT; ++k, below *= BELOW_STEP)
            lower = better_d(lower, s, from, lanes, type->top, storable(below, power));
        if (lower.d == best.d) break;
        best = lower;
        base = lower.d;
    }
    return best.d;
}

/* What a search has found so far, per super-block. */
typedef struct {
    grid_solution s;
    float error[2];
} holder;

static void keep_better(holder *best, const float d[LANES], const float c[LANES], const float error[LANES], int lanes) {
    for (int u = 0; u < LANES / lanes; ++u) {
        float sum = sum_lanes(error + u * lanes, lanes);
        if (!(sum < best->error[u])) continue;
        best->error[u] = sum;
        for (int j = u * lanes; j < (u + 1) * lanes; ++j) best->s.d[j] = d[j], best->s.c[j] = c[j];
    }
}

/* The best codes in a window around the own scales, for each lane's d. */
static void search(const grid_tile *t, const grid_type *type, grid_cost cost, const scales *s, const float d[LANES],
                   int low, int width, int lanes, holder *best) {
    float b[LANES], e[LANES] = {0}, c[LANES], error[LANES];
    for (int k = 0; k < width; ++k) {
        float code[LANES];
        for (int j = 0; j < LANES; ++j) {
            float v = s->own[j] / d[j];
            code[j] = code_near(v < 64.0f ? v : 64.0f, low + k, type->top);
            b[j] = d[j] * (2.0f * code[j] + 1.0f);
        }
        if (cost) cost(t, b, e);
        for (int j = 0; j < LANES; ++j)
            if (k == 0 || e[j] < error[j]) error[j] = e[j], c[j] = code[j];
    }
    keep_better(best, d, c, error, lanes);
}

static void set_d(float d[LANES], int u, int lanes, float value) {
    for (int j = u * lanes; j < (u + 1) * lanes; ++j) d[j] = value;
}

void GT_FN(gt_grid_choose)(const grid_tile *t, const grid_type *type, grid_cost scan, grid_cost codes,
                           const grid_plan *p, grid_solution *out) {
    int lanes = SUPER / type->sub;
    scales s;
    holder best = {{{0}, {0}}, {ABOVE_ALL, ABOVE_ALL}};
    float d[LANES], center[LANES];
    first_scales(t, scan, p, &s);
    for (int u = 0; u < LANES / lanes; ++u)
        set_d(d, u, lanes, first_d(&s, u * lanes, lanes, type, p, t->power[u]));
    /* without other d to compare with there is no need for exact errors, and without other codes for none at all */
    grid_cost cost = p->starts ? type->cost : p->width > 1 ? codes : NULL;
    search(t, type, cost, &s, d, p->low, p->width, lanes, &best);
    memcpy(center, d, sizeof center);
    for (int k = 0; k < p->starts; ++k) {
        float factor = p->start_from + (float)k * p->start_step;
        for (int u = 0; u < LANES / lanes; ++u)
            set_d(d, u, lanes, storable(center[u * lanes] * factor, t->power[u]));
        search(t, type, type->cost, &s, d, p->start_low, p->start_width, lanes, &best);
    }
    *out = best.s;
}

void GT_FN(gt_grid_round)(const grid_tile *t, const grid_type *type, grid_solution *s, grid_pick *pick) {
    int lanes = SUPER / type->sub;
    float b[LANES], xl[LANES], ll[LANES];
    for (int j = 0; j < LANES; ++j) b[j] = s->d[j] * (2.0f * s->c[j] + 1.0f);
    type->fit(t, b, pick);
    for (int j = 0; j < LANES; ++j) {
        float m = 2.0f * s->c[j] + 1.0f;
        xl[j] = m * pick->xl[j];
        ll[j] = (m * m) * pick->ll[j];
    }
    for (int u = 0; u < LANES / lanes; ++u) {
        float above = sum_lanes(xl + u * lanes, lanes), below = sum_lanes(ll + u * lanes, lanes);
        set_d(s->d, u, lanes, below > 0.0f ? above / below * t->power[u] : 0.0f);
    }
}
