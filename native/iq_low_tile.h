/* Sixteen blocks of a row side by side, for IQ2_KS, IQ3_KS and IQ2_KL: how they come into the lanes, what their error
 * and their moments are at a scale, and the notes that are kept of them. iq_low_search.h says what for. */
#ifndef GGUFTOOL_IQ_LOW_TILE_H
#define GGUFTOOL_IQ_LOW_TILE_H

#include "codebook.h"
#include "iq2_kl_pairs.h"

#define BLOCK 32
#define BATCH (BLOCK * LANES)
#define SUPER 256
#define SUBS (SUPER / BLOCK)
#define HEADER 2
#define OUTLIER 6.0f /* so many times the weighted root mean square matters little; with even weights there is none */
#define VARIANTS 4
#define TRIALS 16
#define GROUPS 16 /* of LANES d each, at most */

/* Which codebook: V2 or V3, plain or shifted, or pairs of V3. */
enum kind { FOUR, EIGHT, DUOS };
GT_INLINE const codebook *values_of(int kind) { return kind == FOUR ? &V2 : &V3; }

typedef struct {
    int kind, bytes;
    float shift, top, most; /* of the shifted table; the largest entry; -most <= c < most */
    float mean;             /* the reference's weight: importance * root of mean * mean(x^2) + x^2 */
    float floor;            /* without an importance: floor * mean * mean(x^2) + x^2; |x| if it is negative */
} type_of;

/* Variant v has the sign - if v & 1, the shifted table if v & 2. */
GT_INLINE int variants_of(const type_of *type) { return type->shift > 0.0f ? 4 : 2; }

/* Candidates for a c near a real v: round(|v|) + low + k, k < count. */
typedef struct {
    int low, count;
} window;

/* How far a search goes. */
typedef struct {
    spread trials;     /* at most TRIALS, around the scale that puts the largest element on the largest entry */
    float from, ratio; /* the d that are estimated: what the row's largest needs at most * from * ratio^k, both signs */
    int groups;        /* of LANES such d, half of them negative; LANES more lie far below */
    int starts, refits;
    window scan, search; /* for those that are estimated, and for those that are searched */
} plan;

/* A row, and where its bytes go. */
typedef struct {
    const type_of *type;
    const plan *p;
    const float *x, *w;
    int64_t n;
    uint8_t *out;
    int objective;
    float power; /* x of the tiles times this is x as given */
    int far;
} row;

/* Sixteen blocks on their sides: row i holds element i of each. */
typedef struct {
    float x[BATCH], w[BATCH];
    float ratio[BATCH / 2]; /* of the two weights of each pair */
    float largest[LANES];   /* max |x| of the elements that matter */
    float energy[LANES];    /* sum w x^2: the error of zeros */
    float own[VARIANTS][LANES];
} __attribute__((aligned(64))) tile;

/* ---- over the 32 rows of a group of lanes ---- */

/* For each variant xl = sum w x l, l with the signs turned if the scale is negative, and ll = sum w l^2. */
typedef struct {
    vf xl[VARIANTS], ll[VARIANTS];
} moments;

GT_INLINE void add_moments(moments *m, int v, vf y, vf weight, vf l) {
    m->xl[v] += y * l;
    m->ll[v] += (weight * l) * l;
}

GT_INLINE void moments_of_variants(int kind, const tile *t, int o, vf inverse, moments *out) {
    const codebook *c = values_of(kind);
    const book b = open_book(c);
    moments m = {{{0}}, {{0}}};
    for (int i = 0; kind != DUOS && i < BLOCK; ++i) {
        vf x = vf_load(t->x + i * LANES + o), w = vf_load(t->w + i * LANES + o), y = w * x, s = x * inverse, place[2];
        places_of(s, c, &place[0], &place[1]);
        for (int n = 0; n < 2; ++n) {
            vf low, high, at = n ? -s : s;
            pair_at(place[n], &b, c, &low, &high);
            add_moments(&m, n, y, w, nearer_of(at, low, high));
            add_moments(&m, n + 2, y, w, nearer_of(at - c->shift, low, high) + c->shift);
        }
    }
    for (int p = 0; kind == DUOS && p < BLOCK / 2; ++p) {
        const float *x = t->x + 2 * p * LANES + o, *w = t->w + 2 * p * LANES + o;
        vf x0 = vf_load(x), x1 = vf_load(x + LANES), w0 = vf_load(w), w1 = vf_load(w + LANES);
        for (int n = 0; n < 2; ++n) {
            vf s = n ? -inverse : inverse, s1 = x1 * s;
            vi first = first_of_pair(x0 * s, s1, vf_load(t->ratio + p * LANES + o));
            add_moments(&m, n, w0 * x0, w0, one_of_8(FIRSTS, first));
            add_moments(&m, n, w1 * x1, w1, second_of_pair(first, s1));
        }
    }
    for (int n = 1; n < VARIANTS; n += 2) m.xl[n] = -m.xl[n];
    *out = m;
}

/* At one signed scale, of either table. */
GT_INLINE void moments_at(int kind, const tile *t, int o, vf inverse, vf shift, vf *xl, vf *ll) {
    const book b = open_book(values_of(kind));
    moments m = {{{0}}, {{0}}};
    for (int i = 0; i < BLOCK; i += 2) {
        vf x[2], w[2], s[2], l[2];
        for (int k = 0; k < 2; ++k) {
            x[k] = vf_load(t->x + (i + k) * LANES + o);
            w[k] = vf_load(t->w + (i + k) * LANES + o);
            s[k] = x[k] * inverse - shift;
            if (kind != DUOS) l[k] = nearest_entry(s[k], &b, values_of(kind)) + shift;
        }
        if (kind == DUOS) {
            vi first = first_of_pair(s[0], s[1], vf_load(t->ratio + i / 2 * LANES + o));
            l[0] = one_of_8(FIRSTS, first);
            l[1] = second_of_pair(first, s[1]);
        }
        for (int k = 0; k < 2; ++k) add_moments(&m, 0, w[k] * x[k], w[k], l[k]);
    }
    *xl = m.xl[0];
    *ll = m.ll[0];
}

/* sum w (t - l)^2 at two signed scales. */
GT_INLINE void errors_at(int kind, const tile *t, int o, const vf inverse[PAIRS], vf shift, vf error[PAIRS]) {
    const float *x = t->x + o, *w = t->w + o;
    const book b = open_book(values_of(kind));
    vf a[PAIRS] = {{0}};
    if (kind == DUOS)
        for (int i = 0; i < BLOCK; i += 2) {
            vf x0 = vf_load(x + i * LANES), x1 = vf_load(x + (i + 1) * LANES), w1 = vf_load(w + (i + 1) * LANES);
            vf ratio = vf_load(t->ratio + i / 2 * LANES + o);
            EACH(PAIRS) a[u] += w1 * cost_of_pair(x0 * inverse[u], x1 * inverse[u], ratio);
        }
    else
        for (int i = 0; i < BLOCK; ++i) {
            vf v = vf_load(x + i * LANES), weight = vf_load(w + i * LANES);
            EACH(PAIRS) {
                vf s = v * inverse[u] - shift, low, high;
                pair_at(place_of(s, values_of(kind)), &b, values_of(kind), &low, &high);
                a[u] += weight * lesser_square(s - low, s - high);
            }
        }
    EACH(PAIRS) error[u] = a[u];
}

/* ---- sixteen blocks on their sides ---- */

/* The reference's weights: importance times the root of mean * mean(x^2) + x^2, the mean over 256. */
GT_INLINE void weigh_as_reference(tile *t, const type_of *type, int has_w) {
    float means[LANES];
    for (int o = 0; o < LANES; o += VW) {
        vf a = {0};
        for (int i = o; i < BATCH; i += LANES) a += vf_load(t->x + i) * vf_load(t->x + i);
        vf_store(means + o, a);
    }
    for (int h = 0; h < LANES; h += SUBS) {
        float *p = means + h, s = ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
        for (int j = 0; j < SUBS; ++j) p[j] = s * (type->mean / SUPER);
    }
    for (int o = 0; o < LANES; o += VW) {
        vf mean = vf_load(means + o);
        for (int i = o; i < BATCH; i += LANES) {
            vf x = vf_load(t->x + i), w;
            if (has_w) w = vf_load(t->w + i) * vf_sqrt(mean + x * x);
            else if (type->floor < 0.0f) w = vf_abs(x);
            else w = mean * type->floor + x * x;
            vf_store(t->w + i, vf_max(w, vf_set1(TINY_WEIGHT)));
        }
    }
}

GT_INLINE void measure(tile *t, int pairs) {
    for (int o = 0; o < LANES; o += VW) {
        vf m = {0}, sum = {0};
        for (int i = o; i < BATCH; i += LANES) m = vf_max(m, vf_abs(vf_load(t->x + i)));
        for (int i = o; i < BATCH; i += LANES) sum += vf_load(t->w + i);
        vf energy = energy_of(t->x + o, t->w + o, BLOCK);
        vf_store(t->largest + o, vf_min(m, vf_sqrt(energy / sum) * OUTLIER));
        vf_store(t->energy + o, energy);
        for (int i = 0; pairs && i < BLOCK; i += 2)
            vf_store(t->ratio + i / 2 * LANES + o,
                     vf_load(t->w + i * LANES + o) / vf_load(t->w + (i + 1) * LANES + o));
    }
}

/* Where block b of the row will be written, or within the bytes of its super-block: eight for each block. */
GT_INLINE uint8_t *notes(const row *r, int64_t b) {
    return r->out + HEADER + b / SUBS * r->type->bytes + b % SUBS * 8;
}

/* The sixteen blocks from element i on; the last of a row are followed by zeros. Returns how many there are. */
GT_INLINE int fill_tile(tile *t, const row *r, int64_t i) {
    const int64_t left = r->n - i;
    const float *x = r->x + i, *w = r->objective == GT_MSE || !r->w ? NULL : r->w + i;
    float padded_x[BATCH], padded_w[BATCH];
    if (left < BATCH) {
        memset(padded_x, 0, sizeof padded_x);
        memcpy(padded_x, x, (size_t)left * sizeof *x);
        x = padded_x;
        for (int k = 0; w && k < BATCH; ++k) padded_w[k] = k < left ? w[k] : 1.0f;
        if (w) w = padded_w;
    }
    transpose(x, BLOCK, BLOCK, t->x);
    if (r->far) cut_far(t->x, BATCH);
    vf inverse = inverse_power(vf_set1(r->power));
    for (int k = 0; k < BATCH; k += VW) vf_store(t->x + k, vf_load(t->x + k) * inverse);
    if (w) transpose(w, BLOCK, BLOCK, t->w);
    else
        for (int k = 0; k < BATCH; k += VW) vf_store(t->w + k, vf_set1(1.0f));
    if (r->objective == GT_REF) weigh_as_reference(t, r->type, w != NULL);
    measure(t, r->type->kind == DUOS);
    return left < BATCH ? (int)(left / BLOCK) : LANES;
}

GT_INLINE void write_notes(const row *r, int64_t i, const tile *t, int blocks) {
    for (int j = 0; j < blocks; ++j)
        for (int v = 0; v < variants_of(r->type); ++v)
            u16_store(notes(r, i / BLOCK + j) + 2 * v, (uint16_t)(f_bits(t->own[v][j]) >> 16));
}

GT_INLINE void read_notes(const row *r, int64_t i, tile *t, int blocks) {
    memset(t->own, 0, sizeof t->own);
    for (int j = 0; j < blocks; ++j)
        for (int v = 0; v < variants_of(r->type); ++v)
            t->own[v][j] = f_from_bits((uint32_t)u16_load(notes(r, i / BLOCK + j) + 2 * v) << 16);
}

#endif
