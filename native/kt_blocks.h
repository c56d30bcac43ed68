/* A block of 32 of a trellis type: which scale it gets, and which points.
 *
 * A model of the error tells where to look. The codebook is nearly Gaussian with deviation SPREAD, so around a target t
 * points lie with a density that falls by exp(-|t|^2 / (2 SPREAD^2)), and the least squared distance is about
 *
 *     c SPREAD^2 exp(|t|^2 / (n SPREAD^2)) times the geometric mean of the weights      (n coordinates)
 *
 * with c from the number of points. At a scale s, t is x / s: a small scale puts large x where points are rare, a large
 * one makes every distance larger; and no point reaches further than 126. The scale at which the sum over the block's
 * groups is least is the natural one. The true error scatters around the model by a quarter at each scale (a minimum
 * over a few points is a matter of luck), so the more scales are tried the better, and all that are not far from the natural
 * one may win: scan_scales tries a bundle of them at a time, the bundle nearest the natural scale first, and gives a
 * bundle up when what it costs so far and a part of what the rest should cost are no less than the best.
 */
#ifndef GGUFTOOL_KT_BLOCKS_H
#define GGUFTOOL_KT_BLOCKS_H

#include "kt_search.h"

#define SUPER 256
#define BLOCK 32
#define MAX_GROUPS 8
#define MAX_CODES 128

/* A type: the codebooks that a block may choose between, and the scales. */
typedef struct {
    int id;
    shape f;
    int books, first_book;
    int signs;     /* signs are stored apart: points are magnitudes */
    int codes;     /* of scales: 0 .. codes - 1 */
    int bytes;     /* of a super-block */
    float top;     /* the value of the scale that a row's largest block gets, naturally */
    float largest; /* the largest value of a scale */
    float density; /* c of the model */
} trellis;

enum { IQ2_KT = 153, IQ3_KT = 154, IQ4_KT = 155, IQ1_KT = 158 };

GT_INLINE int scale_value(const trellis t, int code) {
    static const int8_t V4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return t.id == IQ3_KT ? code : t.id == IQ4_KT ? code - 64 : V4[code];
}

/* How far a search goes. The numbers were found by trying, on rows that are in no test. */
typedef struct {
    float low, high; /* the scales that are tried, as parts of the natural one */
    float reach;     /* how near cells must be to be scanned, as a part of the distance that the model expects */
    int last[PARTS]; /* parts of the last search, for the points of the scale that is chosen */
    int rows;        /* scales of the row that are tried, of ROW_SCALES */
} plan;

#define MOST 192     /* vectors that are scanned for a bundle of scales and a group */
#define RATIO 1.3f   /* of the largest to the least scale of a bundle */
#define HOPE 0.5f    /* the part of the expected error that the groups to come may have */
static const float ROW_SCALES[4] = {1.0f, 0.92f, 1.09f, 0.85f};
static const int FROM_AFAR[PARTS] = {0, 4, 24, 112};

typedef struct {
    float x[BLOCK], w[BLOCK]; /* x scaled by a power of two: of the order of 1 at most in a row */
    int16_t roots[BLOCK];     /* of the weights, for distances */
    float unit[MAX_GROUPS];   /* a distance in integers times this is a squared error at scale 1; 0: no weight */
    float density[MAX_GROUPS], norm[MAX_GROUPS]; /* the model's error at scale s: s^2 density exp(norm / s^2) */
    float energy;                                /* sum of w x^2 */
    float natural;
} block;

/* What a block is stored as. */
typedef struct {
    int code, book;
    uint32_t at[MAX_GROUPS];
} choice;

GT_INLINE float root(float x) { return __builtin_sqrtf(x); }
GT_INLINE float magnitude(float x) { return x < 0 ? -x : x; }

/* ---- the model ---- */

#define SPREAD 37.0f
#define REACHED 118.0f /* by the largest values of most points */
#define STEPS 48
#define STEP 1.07f
#define LEAST_STEP 0.15f
#define MOST_TAIL 1000.0f

/* exp(z) for z of 0 to 16, nearly: (1 + z/16)^16. */
GT_INLINE vf tail(vf z) {
    z = z * (1.0f / 16) + 1.0f;
    z *= z;
    z *= z;
    z *= z;
    return z * z;
}

/* The scale at which the model's error is least, of 48 from 0.15 to 3.6 of the deviation of the largest group. */
GT_INLINE float natural_scale(const trellis t, const block *b, float largest_norm) {
    float scale[STEPS], error[STEPS];
    scale[0] = root(largest_norm) * LEAST_STEP;
    for (int k = 1; k < STEPS; ++k) scale[k] = scale[k - 1] * STEP;
    for (int o = 0; o < STEPS; o += VW) {
        vf s = vf_load(scale + o), inverse = 1.0f / (s * s), e = {0};
        for (int i = 0; i < BLOCK / t.f.dims; ++i)
            e += vf_min(tail(b->norm[i] * inverse), vf_set1(MOST_TAIL)) * b->density[i];
        e *= s * s;
        for (int j = 0; j < BLOCK; ++j) {
            vf over = vf_max(magnitude(b->x[j]) - REACHED * s, vf_set1(0.0f));
            e += over * over * b->w[j];
        }
        vf_store(error + o, e);
    }
    int best = 0;
    for (int k = 1; k < STEPS; ++k) best = error[k] < error[best] ? k : best;
    return scale[best];
}

/* What the search wants to know of a block whose x and w are there. */
GT_INLINE void measure_block(const trellis t, block *b) {
    float largest = 0;
    b->energy = 0;
    for (int i = 0; i < BLOCK; i += t.f.dims) {
        float most = 0, norm = 0, mean = 1;
        for (int j = i; j < i + t.f.dims; ++j) {
            float eighth = root(root(root(b->w[j])));
            most = b->w[j] > most ? b->w[j] : most;
            norm += b->x[j] * b->x[j];
            mean *= t.f.dims == 4 ? eighth * eighth : eighth;
            b->energy += b->w[j] * b->x[j] * b->x[j];
        }
        for (int j = i; j < i + t.f.dims; ++j)
            b->roots[j] = most > 0 ? (int16_t)(root(b->w[j] / most) * MAX_ROOT) : MAX_ROOT;
        norm *= 1 / (SPREAD * SPREAD * (float)t.f.dims);
        b->unit[i / t.f.dims] = most * (DISTANCE_UNIT * DISTANCE_UNIT);
        b->norm[i / t.f.dims] = norm;
        b->density[i / t.f.dims] = mean * t.density * (SPREAD * SPREAD);
        largest = norm > largest ? norm : largest;
    }
    b->natural = largest > 0 ? natural_scale(t, b, largest) : 0;
}

/* ---- scales ---- */

/* x / s for scales from 1/most_inverse to 1/least_inverse, of that sign. */
GT_INLINE void aim(const trellis t, const block *b, int group, float inverse_a, float inverse_b, target *g) {
    for (int j = 0; j < t.f.dims; ++j) {
        float x = b->x[group * t.f.dims + j], limit = MAX_TARGET;
        x = (t.signs ? magnitude(x) : x) * UNIT;
        float p = x * inverse_a, q = x * inverse_b, from = p < q ? p : q, to = p < q ? q : p;
        from = from < limit ? from : limit;
        to = to < limit ? to : limit;
        g->from[j] = (int16_t)i_round(from > -limit ? from : -limit);
        g->to[j] = (int16_t)i_round(to > -limit ? to : -limit);
        g->r[j] = b->roots[group * t.f.dims + j];
    }
}

GT_INLINE void multiply(const trellis t, const block *b, int group, products *p) {
    float most = 0, top = 0, along[8];
    p->energy = 0;
    for (int j = 0; j < t.f.dims; ++j) {
        float x = b->x[group * t.f.dims + j], w = b->w[group * t.f.dims + j];
        along[j] = w * (t.signs ? magnitude(x) : x);
        p->energy += w * x * x;
        most = w > most ? w : most;
        top = magnitude(along[j]) > top ? magnitude(along[j]) : top;
    }
    for (int j = 0; j < t.f.dims; ++j) {
        p->weight[j] = (int16_t)i_round(b->w[group * t.f.dims + j] / most * MAX_WEIGHT);
        p->along[j] = top > 0 ? (int16_t)i_round(along[j] / top * MAX_ALONG) : 0;
    }
    p->wide = most * (1.0f / MAX_WEIGHT);
    p->deep = top * (1.0f / MAX_ALONG / UNIT);
}

/* Scales of one sign that are close together. */
typedef struct {
    int n, codes[SCALES];
    float scale[SCALES], least, most; /* magnitudes */
    float sign, away;                 /* how far from the natural scale, as a ratio of at least 1 */
} bundle;

/* The best scale so far. */
typedef struct {
    float error;
    int code, book;
    float distance[MAX_GROUPS]; /* error of each group, at scale 1 */
} trial;

typedef struct {
    float total[SCALES], parts[SCALES][MAX_GROUPS];
} bundle_errors;

/* expected[i] = the part of what groups i.. should cost that is hoped for; tails[i] = what a group's distance grows by. */
GT_INLINE void expect(const block *b, int groups, const bundle *u, float *expected, float *tails) {
    const float between = u->least * u->most;
    expected[groups] = 0;
    for (int i = groups - 1; i >= 0; --i) {
        float z = b->norm[i] / between * (1.0f / 16) + 1.0f;
        z *= z;
        z *= z;
        z *= z;
        z *= z;
        tails[i] = z < 30.0f ? z : 30.0f;
        expected[i] = expected[i + 1] + HOPE * b->density[i] * tails[i] * (u->least * u->least);
    }
}

/* Adds a group's errors; the least sum so far comes back. */
GT_INLINE float add_group(const trellis t, const plan *p, const block *b, int i, const bundle *u, float grows,
                          bundle_errors errors[2]) {
    target g;
    products q;
    visit v;
    float rho[SCALES], found[SCALES], least = 3e38f, reach = b->density[i] * grows * p->reach / b->unit[i];
    aim(t, b, i, u->sign / u->least, u->sign / u->most, &g);
    multiply(t, b, i, &q);
    for (int k = 0; k < SCALES; ++k) rho[k] = -2 * q.deep / (q.wide * u->scale[k < u->n ? k : 0]) * u->sign;
    for (int k = 0; k < t.books; ++k) {
        const codebook *c = &books[t.first_book + k];
        if (k == 0) choose_visit(c, t.f, &g, (int32_t)(reach < 1e9f ? reach : 1e9f), MOST, &v);
        else v.n_vectors = vectors_of(c, v.cells, v.n_cells, v.vectors);
        scan_scales(c, t.f.dims, &q, &v, u->n, rho, found);
        for (int j = 0; j < u->n; ++j) {
            float e = q.energy + q.wide * u->scale[j] * u->scale[j] * found[j];
            errors[k].parts[j][i] = e;
            errors[k].total[j] += e;
            least = errors[k].total[j] < least ? errors[k].total[j] : least;
        }
    }
    return least;
}

GT_INLINE void try_bundle(const trellis t, const plan *p, const block *b, const bundle *u, trial *best) {
    const int groups = BLOCK / t.f.dims;
    float expected[MAX_GROUPS + 1], tails[MAX_GROUPS];
    bundle_errors errors[2] = {{{0}, {{0}}}};
    expect(b, groups, u, expected, tails);
    for (int i = 0; i < groups; ++i)
        if (b->unit[i] > 0 && add_group(t, p, b, i, u, tails[i], errors) + expected[i + 1] >= best->error) return;
    for (int k = 0; k < t.books; ++k)
        for (int j = 0; j < u->n; ++j)
            if (errors[k].total[j] < best->error) {
                *best = (trial){errors[k].total[j], u->codes[j], k, {0}};
                for (int i = 0; i < groups; ++i)
                    best->distance[i] = errors[k].parts[j][i] / (u->scale[j] * u->scale[j]);
            }
}

/* The scales d * value that are to be tried, those nearest to the natural scale first. */
GT_INLINE int make_bundles(const trellis t, const plan *p, const block *b, float d, bundle bundles[MAX_CODES]) {
    const int most = t.f.dims == 4 ? SCALES : SCALES / 2;
    float gap = 3e38f;
    int closest = 0, n = 0;
    for (int code = 0; code < t.codes; ++code) {
        float away = magnitude(d * magnitude((float)scale_value(t, code)) - b->natural);
        if (scale_value(t, code) == 0 || !(away < gap)) continue;
        gap = away;
        closest = code;
    }
    for (int code = 0; code < t.codes; ++code) {
        float value = (float)scale_value(t, code), sign = value < 0 ? -1.0f : 1.0f, s = d * magnitude(value);
        int near = s > p->low * b->natural && s < p->high * b->natural;
        if (value == 0 || !(near || code == closest)) continue;
        bundle *u = &bundles[n - (n > 0)];
        if (n == 0 || u->sign != sign || u->n == most || s > RATIO * u->least || u->most > RATIO * s) {
            u = &bundles[n++];
            *u = (bundle){0, {0}, {0}, s, s, sign, 0};
        }
        u->codes[u->n] = code;
        u->scale[u->n++] = s;
        u->least = s < u->least ? s : u->least;
        u->most = s > u->most ? s : u->most;
    }
    for (int i = 0; i < n; ++i) {
        float away = bundles[i].least * bundles[i].most / (b->natural * b->natural);
        bundles[i].away = away < 1 ? 1 / away : away;
    }
    return n;
}

GT_INLINE trial choose_scale(const trellis t, const plan *p, const block *b, float d) {
    bundle bundles[MAX_CODES];
    const int n = make_bundles(t, p, b, d, bundles);
    trial best = {3e38f, bundles[0].codes[0], 0, {0}};
    for (int i = 0; i < n; ++i) {
        int next = i;
        for (int k = i + 1; k < n; ++k) next = bundles[k].away < bundles[next].away ? k : next;
        bundle u = bundles[next];
        bundles[next] = bundles[i];
        try_bundle(t, p, b, &u, &best);
    }
    return best;
}

/* ---- points ---- */

/* The points of a scale s. distance: what the groups cost at most, about, at scale 1; 0 if nobody knows. */
GT_INLINE void choose_points(const trellis t, const plan *p, const block *b, float s, const float *distance, choice *c) {
    const codebook *k = &books[t.first_book + c->book];
    for (int i = 0; i < BLOCK / t.f.dims; ++i) {
        target g;
        found_point n = {INT32_MAX, 0};
        float bound = b->unit[i] > 0 ? distance[i] / b->unit[i] : 0;
        aim(t, b, i, 1 / s, 1 / s, &g);
        if (bound > 0 && bound < 1e9f) n = nearest_point(k, t.f, &g, (int32_t)bound, p->last);
        if (!(bound > 0) || (float)n.distance > 1.2f * bound) n = nearest_point(k, t.f, &g, INT32_MAX, FROM_AFAR);
        c->at[i] = n.at;
    }
}

/* The best that a block can be with the row's scale d. */
GT_INLINE void choose_block(const trellis t, const plan *p, const block *b, float d, choice *c) {
    trial best = choose_scale(t, p, b, d);
    *c = (choice){best.code, best.book, {0}};
    if ((t.id == IQ3_KT || t.id == IQ4_KT) && best.error >= b->energy) c->code = t.id == IQ3_KT ? 0 : 64;
    if (scale_value(t, c->code) != 0)
        choose_points(t, p, b, d * (float)scale_value(t, c->code), best.distance, c);
}

#endif
