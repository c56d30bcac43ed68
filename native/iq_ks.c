/* IQ4_KSS, IQ4_KS and IQ5_KS: one float for a row, and for each 32 weights an odd scale and a bit that shifts the
 * codebook.
 *
 * y = (d * s) * (V[q] + shift), s odd in -127 .. 127; codebook.h has V. A row is d as f32, then super-blocks of 256. A
 * block's scale byte is S = s + 127, which is even, plus the bit. IQ4_KS: 136 bytes, eight S, then eight times 16
 * bytes with the codes of elements 0..15 in the low and 16..31 in the high nibbles. IQ5_KS: 168 bytes, eight S, four
 * times 32 bytes with the low bits of one block in the low and of the next in the high nibbles, 32 bytes with the
 * fifth bits, block b in bit b. IQ4_KSS: 128 bytes, and where IQ4_KS has its nibbles S hides in the lowest bit of each
 * of eight words; the other 15 bits are the inverse Gray code of the codes of elements 2k, 2k + 16, 2k + 1, 2k + 17,
 * which exists if they have an even number of bits in all. The best such codes: the nearest of even and of odd parity
 * for each, the better of the two, and if that leaves the parity odd, the cheapest of four changes.
 *
 * The reference tries fifteen scales (eleven for IQ5_KS), 5 % around the one that puts the largest weight at the end
 * of the table, of either sign and with either table, rounds the best to s, and is left with what that gives; in
 * IQ4_KSS it prices changes of parity with the wrong sign or table in many of the trials. Here d is fixed first, at
 * what the row's largest weight needs, and nothing is tried but what can be stored: every s in a wide window, both
 * signs, both tables, by the error of its best codes. Then some smaller (IQ5_KS: nearby) d are tried with fewer s,
 * around those found so far; the best is refitted by least squares over the row, searched once more, and refitted
 * again.
 *
 * Errors are as rough in s as a saw with parity, so thinning the scales costs what thinning the window does not. The
 * error against the reference's, same weights, mean over three kinds of rows, with and without an importance: IQ4_KSS
 * 0.880 and 0.624, IQ4_KS 0.960 and 0.894, IQ5_KS 0.935 and 0.884. Of the time that libggml takes for Q4_K (AVX-512,
 * AVX2): IQ4_KSS a half and two thirds, IQ4_KS a quarter and a half, IQ5_KS a quarter and three fifths. fast, one d
 * and a narrower window, takes less than two fifths of that: 0.885 and 0.625, 0.965 and 0.896, 0.940 and 0.892. best,
 * 32 d and wider windows, takes eight times as long: 0.878 and 0.623, 0.958 and 0.8925, 0.928 and 0.881.
 *
 * No scale is 0: a block of zeros in a row that is not zero becomes +-d, a 14000th of the row's largest weight, or so.
 * Choosing the scales and writing the codes are separate, so that an encoder may change the columns in between; the
 * bytes S wait in the row meanwhile.
 */
#include "iq_ks_search.h"

/* How far a search goes. The numbers were found by trying, on rows that are in no test. */
typedef struct {
    window first;
    int starts;                   /* further d, tried as starting points: */
    float from_start, step_start; /* the first one times from_start + k * step_start, k < starts */
    int settles;                  /* refits of d that are searched once more */
    window settle;                /* around the scales found; for further d too */
} plan;

/* By type and effort. */
static const plan PLANS[3][3] = {{{{0.75f, 1.2f, 0}, 0, 0.0f, 0.0f, 0, {0, 0, 0}},
                                  {{0.68f, 1.3f, 1}, 4, 0.87f, 0.035f, 1, {0, 0, 2}},
                                  {{0.66f, 1.6f, 2}, 32, 0.8f, 0.015f, 4, {0, 0, 4}}},
                                 {{{0.75f, 1.2f, 0}, 0, 0.0f, 0.0f, 0, {0, 0, 0}},
                                  {{0.68f, 1.3f, 1}, 4, 0.87f, 0.035f, 1, {0, 0, 2}},
                                  {{0.66f, 1.6f, 2}, 32, 0.8f, 0.015f, 4, {0, 0, 4}}},
                                 {{{0.85f, 1.3f, 0}, 0, 0.0f, 0.0f, 0, {0, 0, 0}},
                                  {{0.8f, 1.45f, 1}, 4, 0.95f, 0.04f, 1, {0, 0, 2}},
                                  {{0.66f, 1.6f, 2}, 32, 0.8f, 0.015f, 4, {0, 0, 4}}}};

/* A row as given, and the power of two that brings its largest magnitude into [1, 2). */
typedef struct {
    const float *x, *w;
    int64_t n;
    int objective;
    float power, inverse, largest;
} row;

#define LARGEST_POWER 0x1p126f /* magnitudes beyond it are cut to it: nothing decoded is infinite */
#define LEAST_POWER 0x1p-126f

static row open_row(const float *x, const float *w, int64_t n, int objective) {
    vf m = {0};
    for (int64_t i = 0; i < n; i += VW) m = vf_max(m, vf_abs(vf_load(x + i)));
    const float largest = vf_min_of(vf_min(vf_set1(vf_max_of(m)), vf_set1(LARGEST_POWER)));
    const float exponent = f_from_bits(f_bits(largest) & 0x7f800000);
    const float power = exponent > LEAST_POWER ? exponent : LEAST_POWER, inverse = 1.0f / power;
    return (row){x, objective == GT_MSE ? NULL : w, n, objective, power, inverse, largest * inverse};
}

/* The sum of a super-block's eight lanes, in all of them. */
GT_INLINE void sum_of_eight(float v[LANES]) {
    for (int h = 0; h < LANES; h += SUBS) {
        float *p = v + h, s = ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
        for (int j = 0; j < SUBS; ++j) p[j] = s;
    }
}

/* The reference's weights: importance times the root of 2 mean(x^2) + x^2; x^2 without an importance. */
static void weigh_as_reference(tile *t, int has_w) {
    float sums[LANES];
    for (int o = 0; o < LANES; o += VW) {
        vf a = {0};
        for (int k = o; k < BATCH; k += LANES) a += vf_load(t->x + k) * vf_load(t->x + k);
        vf_store(sums + o, a);
    }
    sum_of_eight(sums);
    for (int o = 0; o < LANES; o += VW) {
        vf twice_mean = vf_load(sums + o) * (2.0f / SUPER);
        for (int k = o; k < BATCH; k += LANES) {
            vf x = vf_load(t->x + k), w = has_w ? vf_load(t->w + k) * vf_sqrt(twice_mean + x * x) : x * x;
            vf_store(t->w + k, vf_max(w, vf_set1(TINY_WEIGHT)));
        }
    }
}

/* Sixteen blocks from column i on; what is missing at the end of a row counts as zeros. The number that is there. */
static int fill_from(tile *t, const row *r, int64_t i) {
    float padded_x[BATCH], padded_w[BATCH];
    const int64_t left = r->n - i;
    const float *x = r->x + i, *w = r->w ? r->w + i : NULL;
    if (left < BATCH) {
        memset(padded_x, 0, sizeof padded_x);
        memcpy(padded_x, x, (size_t)left * sizeof *x);
        x = padded_x;
        for (int k = 0; w && k < BATCH; ++k) padded_w[k] = k < left ? w[k] : 1.0f;
        if (w) w = padded_w;
    }
    transpose(x, BLOCK, BLOCK, t->x);
    if (w) transpose(w, BLOCK, BLOCK, t->w);
    else
        for (int k = 0; k < BATCH; k += VW) vf_store(t->w + k, vf_set1(1.0f));
    const vf limit = vf_set1(r->largest);
    for (int o = 0; o < LANES; o += VW) {
        vf m = {0};
        for (int k = o; k < BATCH; k += LANES) {
            vf v = vf_min(vf_max(vf_load(t->x + k) * r->inverse, -limit), limit);
            vf_store(t->x + k, v);
            m = vf_max(m, vf_abs(v));
        }
        vf_store(t->largest + o, m);
    }
    if (r->objective == GT_REF) weigh_as_reference(t, w != NULL);
    return left < BATCH ? (int)(left / BLOCK) : LANES;
}

/* ---- where a row's bytes lie ---- */

#define HEADER 4
GT_INLINE int super_bytes(shape type) { return type == IQ4_KSS ? 128 : type == IQ4_KS ? 136 : 168; }

/* The byte S of block k of a row; that of IQ4_KSS lies there until its bits go into the words of the codes. */
GT_INLINE uint8_t *byte_of(shape type, uint8_t *out, int64_t k) {
    uint8_t *super = out + HEADER + k / SUBS * super_bytes(type);
    return super + (type == IQ4_KSS ? 16 * (k % SUBS) : k % SUBS);
}

/* ---- rounding with given scales ---- */

static const float IQ4_VALUES[16] __attribute__((aligned(64))) = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                                  1,    13,   25,  38,  53,  69,  89,  113};

/* The nearest code of a parity. Its eight, in order, are twice their number, the last bit completing the parity. */
GT_INLINE int code_of_parity(int k, int odd) { return 2 * k + (((k ^ k >> 1 ^ k >> 2) & 1) ^ odd); }
GT_INLINE vi nearest_of_parity(vf t, int odd) {
    vi q = {0};
    for (int k = 1; k < 8; ++k) {
        const float low = IQ4_VALUES[code_of_parity(k - 1, odd)], high = IQ4_VALUES[code_of_parity(k, odd)];
        q -= t >= vf_set1((low + high) * 0.5f);
    }
    return q + q + (((q ^ q >> 1 ^ q >> 2) & 1) ^ odd);
}

/* Codes of the four elements of a quadruple, t in units of the codebook: the best among those of even parity. */
GT_INLINE void round_quadruple(const vf t[4], const vf w[4], vi codes[4]) {
    vf price = vf_set1(HOPELESS);
    vi other[4], parity = {0}, flipped = {0};
    for (int i = 0; i < 4; ++i) {
        vi even = nearest_of_parity(t[i], 0), odd = nearest_of_parity(t[i], 1);
        vf e = t[i] - one_of_16(IQ4_VALUES, even), f = t[i] - one_of_16(IQ4_VALUES, odd);
        vf change = w[i] * (f * f - e * e);
        vi takes_odd = change < vf_set1(0.0f), cheaper = vf_abs(change) < price;
        codes[i] = vi_select(takes_odd, odd, even);
        other[i] = vi_select(takes_odd, even, odd);
        parity ^= takes_odd;
        price = vf_select(cheaper, vf_abs(change), price);
        flipped = vi_select(cheaper, vi_set1(i), flipped);
    }
    for (int i = 0; i < 4; ++i) codes[i] = vi_select(parity & (flipped == vi_set1(i)), other[i], codes[i]);
}

/* What codes come to: xl = sum w x l and ll = sum w l^2 with the entries l that they stand for. */
typedef struct {
    vf xl, ll;
} moments;

GT_INLINE moments round_words(const float *x, const float *w, vf inverse, vf shift, int32_t *codes) {
    moments sum = {{0}, {0}};
    for (int k = 0; k < BLOCK / 2; k += 2) {
        const int at[4] = {k * LANES, (k + 16) * LANES, (k + 1) * LANES, (k + 17) * LANES};
        vf t[4], weights[4];
        vi q[4];
        for (int i = 0; i < 4; ++i) {
            t[i] = vf_load(x + at[i]) * inverse - shift;
            weights[i] = vf_load(w + at[i]);
        }
        round_quadruple(t, weights, q);
        for (int i = 0; i < 4; ++i) {
            vf l = one_of_16(IQ4_VALUES, q[i]) + shift;
            sum.xl += (weights[i] * vf_load(x + at[i])) * l;
            sum.ll += (weights[i] * l) * l;
            vi_store(codes + at[i], q[i]);
        }
    }
    return sum;
}

GT_INLINE moments round_nearest(const codebook *c, const float *x, const float *w, vf inverse, vf shift,
                                int32_t *codes) {
    const book b = open_book(c);
    moments sum = {{0}, {0}};
    for (int k = 0; k < BATCH; k += LANES) {
        vf v = vf_load(x + k), weight = vf_load(w + k), t = v * inverse - shift, place = place_of(t, c), low, high;
        pair_at(place, &b, c, &low, &high);
        vf l = nearer_of(t, low, high) + shift;
        sum.xl += (weight * v) * l;
        sum.ll += (weight * l) * l;
        vi_store(codes + k, (((vi)place >> 16) & 63) - (t + t >= low + high));
    }
    return sum;
}

/* The codes of the blocks of a group of lanes at d and their bytes S. */
GT_INLINE moments round_tile(shape type, const tile *t, int o, vf d, vf bytes, int32_t codes[BATCH]) {
    const vf inverse = 1.0f / (d * scale_of_byte(bytes)), shift = table_of_byte(type, bytes);
    if (type == IQ4_KSS) return round_words(t->x + o, t->w + o, inverse, shift, codes + o);
    return round_nearest(book_of(type), t->x + o, t->w + o, inverse, shift, codes + o);
}

/* ---- choosing the scales ---- */

/* What a row's codes come to: the least-squares d, 0 if there is none, and by how much it lowers the error. */
typedef struct {
    float d, gain;
} outcome;

/* Chooses every block's byte S at d, in a window around those in `out` at `given_d` or with no regard to them. */
static outcome choose_bytes(shape type, const row *r, float d, const window *win, float given_d, int keeps,
                            uint8_t *out) {
    float above[LANES] = {0}, below[LANES] = {0};
    for (int64_t i = 0; i < r->n; i += BATCH) {
        tile t;
        int32_t codes[BATCH];
        float bytes[LANES] = {0}, xl[LANES], ll[LANES];
        const int live = fill_from(&t, r, i);
        for (int j = 0; win->to == 0.0f && j < live; ++j) bytes[j] = *byte_of(type, out, i / BLOCK + j);
        for (int o = 0; o < LANES; o += VW) {
            const vf given = vf_abs(scale_of_byte(vf_load(bytes + o))) * (given_d / d);
            const vf best = search_bytes(type, &t, o, vf_set1(d), given, win), s = scale_of_byte(best);
            const moments m = round_tile(type, &t, o, vf_set1(d), best, codes);
            vf_store(bytes + o, best);
            vf_store(xl + o, s * m.xl);
            vf_store(ll + o, (s * s) * m.ll);
        }
        for (int j = 0; j < live; ++j) {
            if (keeps) *byte_of(type, out, i / BLOCK + j) = (uint8_t)bytes[j];
            above[j] += xl[j];
            below[j] += ll[j];
        }
    }
    const float xl = sum16(above), fit = xl / sum16(below);
    return (outcome){fit > d * 0x1p-40f ? fit : 0.0f, fit * xl};
}

/* As it is stored. */
static float storable(float d, const row *r) { return d * r->power * r->inverse; }

/* Chooses the scales of a row, and leaves the bytes S in `out`; d, 0 if zeros are best. */
GT_INLINE float choose_scales(shape type, const row *r, const plan *p, uint8_t *out) {
    const float first = storable(r->largest * (1.0f / MOST_STEPS) / end_of(type), r);
    if (!(first > 0.0f)) return 0.0f;
    float start = first;
    outcome best = choose_bytes(type, r, first, &p->first, first, 1, out);
    for (int k = 0; k < p->starts; ++k) {
        const float d = storable(first * (p->from_start + (float)k * p->step_start), r);
        if (!(d > 0.0f)) continue;
        const outcome now = choose_bytes(type, r, d, &p->settle, first, 0, out);
        if (!(now.gain > best.gain)) continue;
        best = now;
        start = d;
    }
    if (start != first) choose_bytes(type, r, start, &p->settle, first, 1, out);
    float d = storable(best.d, r);
    for (int k = 0; k < p->settles && d > 0.0f; ++k)
        d = storable(choose_bytes(type, r, d, &p->settle, d, 1, out).d, r);
    return d;
}

/* ---- bytes ---- */

static void pack_4(const uint8_t *q, uint8_t *out) {
    for (int i = 0; i < 16; ++i) out[i] = (uint8_t)(q[i] | q[i + 16] << 4);
}

static void pack_words(const uint8_t *q, int byte, uint8_t *out) {
    for (int k = 0; k < 8; ++k) {
        int v = q[2 * k] | q[2 * k + 16] << 4 | q[2 * k + 1] << 8 | q[2 * k + 17] << 12;
        v ^= v >> 1;
        v ^= v >> 2;
        v ^= v >> 4;
        v ^= v >> 8;
        u16_store(out + 2 * k, (uint16_t)(v | (byte >> k & 1)));
    }
}

/* Block b of a super-block. */
static void pack_5(const uint8_t *q, int b, uint8_t *super) {
    uint8_t *low = super + 8 + 32 * (b / 2), *high = super + 136;
    for (int i = 0; i < BLOCK; ++i) {
        low[i] = (uint8_t)((b & 1 ? low[i] : 0) | (q[i] & 15) << 4 * (b & 1));
        high[i] = (uint8_t)((b ? high[i] : 0) | q[i] >> 4 << b);
    }
}

GT_INLINE void write_codes(shape type, const row *r, float d, uint8_t *out) {
    for (int64_t i = 0; i < r->n; i += BATCH) {
        tile t;
        int32_t codes[BATCH];
        float bytes[LANES] = {0};
        const int live = fill_from(&t, r, i);
        for (int j = 0; j < live; ++j) bytes[j] = *byte_of(type, out, i / BLOCK + j);
        for (int o = 0; o < LANES; o += VW) round_tile(type, &t, o, vf_set1(d), vf_load(bytes + o), codes);
        for (int j = 0; j < live; ++j) {
            const int64_t k = i / BLOCK + j;
            const int b = (int)(k % SUBS);
            uint8_t q[BLOCK], *super = out + HEADER + k / SUBS * super_bytes(type);
            for (int e = 0; e < BLOCK; ++e) q[e] = (uint8_t)codes[e * LANES + j];
            if (type == IQ4_KSS) pack_words(q, (int)bytes[j], super + 16 * b);
            else if (type == IQ4_KS) pack_4(q, super + 8 + 16 * b);
            else pack_5(q, b, super);
        }
    }
}

GT_INLINE void encode_row(shape type, const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    const row r = open_row(x, w, n, opt->objective);
    const float d = choose_scales(type, &r, &PLANS[type][opt->effort], out);
    if (d > 0.0f) write_codes(type, &r, d, out);
    else memset(out, 0, (size_t)(HEADER + n / SUPER * super_bytes(type)));
    u32_store(out, f_bits(d * r.power));
}

static void encode_iq4_kss(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(IQ4_KSS, x, w, n, out, opt);
}
static void encode_iq4_ks(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(IQ4_KS, x, w, n, out, opt);
}
static void encode_iq5_ks(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_row(IQ5_KS, x, w, n, out, opt);
}

const gt_codec GT_FN(gt_iq_ks)[] = {{146, SUPER, 128, HEADER, encode_iq4_kss, NULL},
                                    {144, SUPER, 136, HEADER, encode_iq4_ks, NULL},
                                    {152, SUPER, 168, HEADER, encode_iq5_ks, NULL},
                                    {0}};
