/* Q1_0 and Q2_0: the sign of each weight, or one of four levels.
 *
 *   q1_0  128 weights  d, 16 bytes: bit i % 8 of byte i / 8         x = bit ? d : -d
 *   q2_0   64 weights  d, 16 bytes: bits 2 (i % 4) of byte i / 4    x = (q - 1) * d: -d, 0, d or 2d
 *
 * The reference's Q1_0 has the mean magnitude for d and looks at no importance; with weights w the best d is
 * sum w|x| / sum w, and that is all there is to choose. Its Q2_0 has the largest magnitude for d, so that most
 * weights become 0 and the level 2d is never used. Effort fast is that, to the byte. Otherwise d is searched for,
 * sixteen blocks side by side: candidates of both signs between the mean magnitude and the largest, each with its
 * least-squares fit. The codes of a d are known by three comparisons, |x| >= d / 2 for either sign and x >= 3 d / 2 or
 * x <= -3 d / 2 for the level 2, and the error by the sums over what passes them. The best is then rounded to
 * binary16, fitted again, rounded again, and only what can be stored is compared. With an importance Q1_0 has 0.99 of
 * the reference's error, Q2_0 0.26 and without one 0.32, where more candidates gain another thousandth; it takes two
 * thirds of the reference's time.
 */
#include "scale_by_largest.h"

#define Q1_BLOCK 128
#define Q2_BLOCK 64
#define Q2_BATCH (Q2_BLOCK * LANES)

/* ---- q1_0 ---- */

/* Bit k: lane k of a comparison is true. */
GT_INLINE uint32_t lane_bits(vi mask) {
#if VW == 16
    return (uint32_t)_mm512_movepi32_mask((__m512i)mask);
#elif VW == 8
    return (uint32_t)_mm256_movemask_ps((__m256)mask);
#elif defined(__SSE2__)
    return (uint32_t)_mm_movemask_ps((__m128)mask);
#else
    uint32_t bits = 0;
    for (int k = 0; k < VW; ++k) bits |= (uint32_t)(mask[k] & 1) << k;
    return bits;
#endif
}

static void put_signs(const float *x, float d, uint8_t *out) {
    u16_store(out, f16_from_scale(d));
    for (int i = 0; i < Q1_BLOCK; i += 16) {
        uint32_t bits = 0;
        for (int k = 0; k < 16; k += VW) bits |= lane_bits(vf_load(x + i + k) >= 0.0f) << k;
        u16_store(out + 2 + i / 8, (uint16_t)bits);
    }
}

/* Sums of magnitudes of sixteen blocks, each added from its first to its last as the reference does. */
static void sums_in_order(const float *x, float sums[LANES]) {
    float rows[16 * LANES] __attribute__((aligned(64)));
    memset(sums, 0, LANES * sizeof *sums);
    for (int from = 0; from < Q1_BLOCK; from += 16) {
        transpose(x + from, Q1_BLOCK, 16, rows);
        for (int o = 0; o < LANES; o += VW) {
            vf a = vf_load(sums + o);
            for (int i = 0; i < 16; ++i) a += vf_abs(vf_load(rows + i * LANES + o));
            vf_store(sums + o, a);
        }
    }
}

static float sum_in_order(const float *x) {
    float sum = 0.0f;
    for (int i = 0; i < Q1_BLOCK; ++i) sum += x[i] < 0.0f ? -x[i] : x[i];
    return sum;
}

/* sum w|x| / sum w; everything times 2^-10 meanwhile, so that no sum overflows. */
static float weighted_mean(const float *x, const float *w) {
    float wx[16], ws[16];
    for (int o = 0; o < 16; o += VW) {
        vf a = {0}, b = {0};
        for (int i = o; i < Q1_BLOCK; i += 16) {
            vf weight = w ? vf_load(w + i) : vf_set1(1.0f);
            a += weight * (vf_abs(vf_load(x + i)) * 0x1p-10f);
            b += weight;
        }
        vf_store(wx + o, a);
        vf_store(ws + o, b);
    }
    return sum16(wx) / sum16(ws) * 0x1p10f;
}

static void q1_0_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    const int64_t batch = Q1_BLOCK * LANES;
    if (opt->objective == GT_MSE) w = NULL;
    for (int64_t i = 0; i < n; i += batch) {
        int blocks = (int)((n - i < batch ? n - i : batch) / Q1_BLOCK);
        const float *at = x + i;
        float d[LANES];
        if (opt->effort == GT_FAST && blocks == LANES) sums_in_order(at, d);
        else
            for (int j = 0; j < blocks; ++j) {
                const float *block = at + j * Q1_BLOCK;
                d[j] = opt->effort == GT_FAST ? sum_in_order(block)
                                              : weighted_mean(block, w ? w + i + j * Q1_BLOCK : NULL);
            }
        for (int j = 0; j < blocks; ++j, out += 18)
            put_signs(at + j * Q1_BLOCK, opt->effort == GT_FAST ? d[j] / Q1_BLOCK : d[j], out);
    }
}

static void q1_0_decode(const uint8_t *in, int64_t n, float *y) {
    vi bit[GT_NV(16)];
    for (int i = 0; i < 16; ++i) bit[i / VW][i % VW] = 1 << i;
    for (int64_t i = 0; i < n; i += Q1_BLOCK, in += 18) {
        const vf d = vf_set1(f16_load(in)), minus = -d;
        for (int j = 0; j < Q1_BLOCK; j += 16) {
            const vi bits = vi_set1(u16_load(in + 2 + j / 8));
            for (int k = 0; k < GT_NV(16); ++k)
                vf_store(y + i + j + k * VW, vf_select((bits & bit[k]) != 0, d, minus));
        }
    }
}

/* ---- q2_0: rounding with a given scale ---- */

/* Four codes of 0..3, a byte each, to the bits of one byte. */
static void put_pairs(const uint8_t codes[Q2_BLOCK], uint8_t *out) {
    uint32_t v[16];
    memcpy(v, codes, sizeof v);
    for (int k = 0; k < 16; ++k) out[k] = (uint8_t)(v[k] | v[k] >> 6 | v[k] >> 12 | v[k] >> 18);
}

/* As the reference rounds: -1, 0 or 1, halves away from zero. */
static void put_q2_0_plain(const float *x, float d, float inverse, uint8_t *out) {
    uint8_t codes[Q2_BLOCK];
    for (int i = 0; i < Q2_BLOCK; i += 32) {
        vi q[GT_NV(32)];
        for (int k = 0; k < GT_NV(32); ++k) {
            vf t = vf_load(x + i + k * VW) * inverse;
            q[k] = (t <= vf_set1(-0.5f)) - (t >= vf_set1(0.5f)) + 1;
        }
        vi_store_bytes32(codes + i, q);
    }
    if (inverse == 0.0f && d > 0.0f) memset(codes, 0, sizeof codes); /* what x86 makes of infinity, cut to 0 .. 3 */
    u16_store(out, f16_from_scale(d));
    put_pairs(codes, out + 2);
}

static void put_q2_0(const float *x, float d, uint8_t *out) {
    uint8_t codes[Q2_BLOCK];
    float inverse = d != 0.0f ? 1.0f / d : 0.0f;
    for (int i = 0; i < Q2_BLOCK; i += 32) {
        vi q[GT_NV(32)];
        for (int k = 0; k < GT_NV(32); ++k)
            q[k] = code_bits(vf_load(x + i + k * VW) * inverse, -1, 2) - (MAGIC_BITS - 1);
        vi_store_bytes32(codes + i, q);
    }
    u16_store(out, f16_from_scale(d));
    put_pairs(codes, out + 2);
}

/* ---- q2_0: choosing the scale ---- */

/* How far a search goes: so many d between low times the mean magnitude and high times the largest one, in geometric
 * steps, each with both signs; then so many least-squares fits. */
typedef struct {
    float low, high;
    int roots; /* 2^roots candidates */
    int refits;
} q2_plan;

static const q2_plan Q2_DEFAULT = {0.9f, 0.9f, 3, 1};
static const q2_plan Q2_BEST = {0.4f, 1.1f, 7, 6};

/* Sixteen blocks on their sides: row i holds element i of each. */
typedef struct {
    float x[Q2_BATCH], w[Q2_BATCH], wa[Q2_BATCH]; /* wa = w|x| */
    float mean[LANES], largest[LANES];            /* of |x|, the mean by weight */
    float d[LANES];                               /* what the search found */
} __attribute__((aligned(64))) q2_tile;

static void fill_q2(q2_tile *t, const float *x, const float *w) {
    transpose(x, Q2_BLOCK, Q2_BLOCK, t->x);
    if (w) transpose(w, Q2_BLOCK, Q2_BLOCK, t->w);
    for (int o = 0; o < LANES; o += VW) {
        vf top = {0}, sum = {0}, weights = {0};
        for (int i = o; i < Q2_BATCH; i += LANES) {
            vf v = within_far(vf_load(t->x + i)), a = vf_abs(v);
            vf weight = w ? vf_load(t->w + i) : vf_set1(1.0f), product = weight * a;
            top = vf_max(top, a);
            sum += product;
            weights += weight;
            vf_store(t->x + i, v);
            vf_store(t->w + i, weight);
            vf_store(t->wa + i, product);
        }
        vf_store(t->largest + o, top);
        vf_store(t->mean + o, sum * inverse_of(weights));
    }
}

/* The codes l that go with a d, as sum w x l and sum w l^2. */
typedef struct {
    vf xl, ll;
} q2_sums;

/* For d > 0 and for -d. The level 2 is on the side of d's sign. */
GT_INLINE void sums_of_both(const q2_tile *t, int o, vf d, q2_sums *plus, q2_sums *minus) {
    vf xl = {0}, ll = {0}, up_xl = {0}, up_ll = {0}, down_xl = {0}, down_ll = {0}, one = d * 0.5f, two = d * 1.5f;
    for (int i = o; i < Q2_BATCH; i += LANES) {
        vf x = vf_load(t->x + i), w = vf_load(t->w + i), wa = vf_load(t->wa + i), a = vf_abs(x), y = -x;
        xl = add_above(xl, a, one, wa);
        ll = add_above(ll, a, one, w);
        up_xl = add_above(up_xl, x, two, wa);
        up_ll = add_above(up_ll, x, two, w);
        down_xl = add_above(down_xl, y, two, wa);
        down_ll = add_above(down_ll, y, two, w);
    }
    *plus = (q2_sums){xl + up_xl, ll + up_ll * 3.0f};
    *minus = (q2_sums){xl + down_xl, ll + down_ll * 3.0f};
}

/* For d of any sign; xl has the sign that makes xl / ll a magnitude. */
GT_INLINE q2_sums sums_of(const q2_tile *t, int o, vf d) {
    q2_sums s = {{0}, {0}};
    vf up_xl = {0}, up_ll = {0}, size = vf_abs(d), one = size * 0.5f, two = size * 1.5f;
    vi sign = (vi)d & (int32_t)0x80000000;
    for (int i = o; i < Q2_BATCH; i += LANES) {
        vf x = vf_load(t->x + i), w = vf_load(t->w + i), wa = vf_load(t->wa + i), toward = (vf)((vi)x ^ sign);
        s.xl = add_above(s.xl, vf_abs(x), one, wa);
        s.ll = add_above(s.ll, vf_abs(x), one, w);
        up_xl = add_above(up_xl, toward, two, wa);
        up_ll = add_above(up_ll, toward, two, w);
    }
    return (q2_sums){s.xl + up_xl, s.ll + up_ll * 3.0f};
}

/* Keeps the least-squares d of these codes, by how much it lowers the error against zeros. */
GT_INLINE void keep_fit(found *best, q2_sums s, float sign) {
    vf d = s.xl * inverse_of(s.ll), gain = d * s.xl;
    keep(best, gain > best->score, gain, d * sign);
}

/* Keeps d as it can be stored, by what that lowers the error; its sums come back. */
GT_INLINE q2_sums keep_stored(found *best, const q2_tile *t, int o, vf d) {
    vf size = round_to_f16(vf_abs(d));
    d = size * sign_of(d);
    q2_sums s = sums_of(t, o, d);
    vf gain = size * (s.xl * 2.0f - size * s.ll);
    keep(best, gain > best->score, gain, d);
    return s;
}

GT_INLINE void choose_q2(q2_tile *t, const q2_plan *p) {
    for (int o = 0; o < LANES; o += VW) {
        vf low = vf_load(t->mean + o) * p->low, step = vf_load(t->largest + o) * p->high * inverse_of(low);
        for (int k = 0; k < p->roots; ++k) step = vf_sqrt(step);
        found best = {{0}, {0}}, real = {{0}, {0}};
        vf d = low * vf_sqrt(step);
        for (int k = 0; k < 1 << p->roots; ++k, d *= step) {
            q2_sums plus, minus;
            sums_of_both(t, o, d, &plus, &minus);
            keep_fit(&real, plus, 1.0f);
            keep_fit(&real, minus, -1.0f);
        }
        keep_fit(&real, keep_stored(&best, t, o, vf_load(t->largest + o)), 1.0f); /* the reference's choice */
        d = real.s;
        for (int r = 0; r <= p->refits; ++r) {
            q2_sums s = keep_stored(&best, t, o, d);
            d = s.xl * inverse_of(s.ll) * sign_of(d);
        }
        vf_store(t->d + o, best.s);
    }
}

static void search_q2(const float *x, const float *w, int blocks, const q2_plan *p, uint8_t *out) {
    float padded_x[Q2_BATCH], padded_w[Q2_BATCH];
    q2_tile t;
    if (blocks < LANES) { /* the last blocks of the row: the other lanes hold zeros */
        const size_t size = (size_t)blocks * Q2_BLOCK * sizeof *x;
        memset(padded_x, 0, sizeof padded_x);
        x = memcpy(padded_x, x, size);
        if (w) {
            memset(padded_w, 0, sizeof padded_w);
            w = memcpy(padded_w, w, size);
        }
    }
    fill_q2(&t, x, w);
    choose_q2(&t, p);
    for (int j = 0; j < blocks; ++j) put_q2_0(x + j * Q2_BLOCK, t.d[j], out + 18 * j);
}

static void q2_0_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    if (opt->objective == GT_MSE) w = NULL;
    if (opt->effort == GT_FAST)
        for (int64_t i = 0; i < n; i += Q2_BLOCK, out += 18)
            put_capped(x + i, Q2_BLOCK, largest_of(x + i, Q2_BLOCK), put_q2_0_plain, out);
    else
        for (int64_t i = 0; i < n; i += Q2_BATCH, out += 18 * LANES)
            search_q2(x + i, w ? w + i : NULL, n - i < Q2_BATCH ? (int)((n - i) / Q2_BLOCK) : LANES,
                      opt->effort == GT_BEST ? &Q2_BEST : &Q2_DEFAULT, out);
}

static void q2_0_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += Q2_BLOCK, in += 18) {
        const vf d = vf_set1(f16_load(in));
        for (int j = 0; j < Q2_BLOCK; j += VW) {
#if VW > 4
            vi shift;
            for (int k = 0; k < VW; ++k) shift[k] = 2 * (k + j % 16);
            vf q = vf_from_int((vi_set1((int32_t)u32_load(in + 2 + j / 16 * 4)) >> shift) & 3);
#else /* no shifts by lane: the bits where they are, and their places divided out */
            const vi place = {3, 12, 48, 192};
            const vf inverse = {1.0f, 0.25f, 0.0625f, 0.015625f};
            vf q = vf_from_int(vi_set1(in[2 + j / 4]) & place) * inverse;
#endif
            vf_store(y + i + j, (q - 1.0f) * d);
        }
    }
}

const gt_codec GT_FN(gt_lowbit)[] = {
    {41, Q1_BLOCK, 18, 0, q1_0_encode, q1_0_decode}, {42, Q2_BLOCK, 18, 0, q2_0_encode, q2_0_decode}, {0}};
