/* TQ1_0 and TQ2_0: blocks of 256 weights that are -d, 0 or d.
 *
 *   tq2_0  64 bytes of 2-bit codes t + 1, d     byte l of either half holds its elements l, l+32, l+64, l+96
 *   tq1_0  48 bytes of five trits, 4 of four, d  byte l < 32 holds elements l, l+32 .. l+128, byte 32 + l elements
 *                                                160 + l, 176 + l .., byte 48 + l elements 240 + l, 244 + l ..
 * Five trits t + 1, the first the most significant, are a number v < 243, stored as ceil(256 v / 243): times three, the
 * carry out of the byte is the first trit, what stays in it holds the rest.
 *
 * The reference takes the largest magnitude for d, which is right for weights that are ternary already and loses two
 * thirds of everything else. That is effort fast here, to the byte. Otherwise: for weights w the best codes of a given
 * d are non-zero where |x| > d / 2, the best d of given codes is sum w|x| / sum w over them, so the non-zero set is a
 * prefix of the order by magnitude, and the prefix with the largest (sum w|x|)^2 / sum w is the optimum. No sorting is
 * needed to find it. The optimal d lies between the mean magnitude and the largest one; eight values in between, in
 * geometric steps, and the largest, then four around the best of them, are tried as d, and once more codes and d are
 * fitted to each other. That ends within 0.01 % of the optimum on dense rows, 0.03 % on sparse ones; best tries every
 * prefix there is. Then d is rounded to binary16 and the codes are chosen for it. Against the reference's the error is
 * 0.37 with an importance, 0.41 without, in little more than half its time.
 *
 * Blocks with all magnitudes 0 or a keep the reference's bytes at every effort.
 */
#include "scale_by_largest.h"

#define SUPER 256

/* ---- rounding with a given scale, and the bytes ---- */

/* 32 of 0..255 as bytes. */
GT_INLINE void store_bytes32(uint8_t *out, vi v[GT_NV(32)]) {
    for (int k = 0; k < GT_NV(32); ++k) v[k] = v[k] << 24 >> 24;
    vi_store_bytes32(out, v);
}

/* t + 1 for VW weights. */
GT_INLINE vi trits(const float *x, float inverse) {
    vf t = vf_load(x) * inverse;
    return (t <= vf_set1(-0.5f)) - (t >= vf_set1(0.5f)) + 1;
}

static void put_tq2_0(const float *x, float d, float inverse, uint8_t *out) {
    for (int half = 0; half < 2; ++half) {
        vi v[GT_NV(32)];
        for (int k = 0; k < GT_NV(32); ++k) {
            const float *at = x + 128 * half + k * VW;
            v[k] = trits(at, inverse) | trits(at + 32, inverse) << 2 | trits(at + 64, inverse) << 4 |
                   trits(at + 96, inverse) << 6;
        }
        store_bytes32(out + 32 * half, v);
    }
    u16_store(out + 64, f16_from_scale(d));
}

/* ceil(256 v / 243) = v + ceil(13 v / 243) for v < 243. */
GT_INLINE vi trit_bytes(vi v) { return v + ((v * (13 * 270) + 242 * 270) >> 16); }

/* VW bytes of five trits each, a stride apart. */
GT_INLINE vi five_trits(const float *x, int stride, float inverse) {
    vi v = trits(x, inverse);
    for (int n = 1; n < 5; ++n) v = v * 3 + trits(x + n * stride, inverse);
    return trit_bytes(v);
}

static void put_tq1_0(const float *x, float d, float inverse, uint8_t *out) {
    vi v[GT_NV(32)];
    int32_t last[16];
    uint8_t bytes[32];
    for (int k = 0; k < GT_NV(32); ++k) v[k] = five_trits(x + k * VW, 32, inverse);
    store_bytes32(out, v);
    for (int k = 0; k < GT_NV(16); ++k) {
        v[k] = v[k + GT_NV(16)] = five_trits(x + 160 + k * VW, 16, inverse);
        vi_store(last + k * VW, trits(x + 240 + k * VW, inverse));
    }
    store_bytes32(bytes, v);
    memcpy(out + 32, bytes, 16);
    for (int l = 0; l < 4; ++l) {
        int v4 = 81 * last[l] + 27 * last[4 + l] + 9 * last[8 + l] + 3 * last[12 + l];
        out[48 + l] = (uint8_t)((256 * v4 + 242) / 243);
    }
    u16_store(out + 52, f16_from_scale(d));
}

/* ---- choosing the scale ---- */

/* A block as magnitudes, scaled by a power of two so that the largest is in [1, 2). */
typedef struct {
    float a[SUPER], w[SUPER], wa[SUPER];
    float power, largest; /* a times power is |x| */
} __attribute__((aligned(64))) block;

/* So many thresholds share the loads. */
#define MANY 4

/* Each threshold's sixteen partial sums, added up. */
GT_INLINE void sums16(float parts[MANY][16], int many, float out[MANY]) {
#if defined(__SSE2__)
    if (many == MANY) { /* the same tree, four sums at once */
        __m128 b[4];
        for (int u = 0; u < 4; ++u) {
            const float *p = parts[u];
            b[u] = _mm_add_ps(_mm_add_ps(_mm_load_ps(p), _mm_load_ps(p + 8)),
                              _mm_add_ps(_mm_load_ps(p + 4), _mm_load_ps(p + 12)));
        }
        _MM_TRANSPOSE4_PS(b[0], b[1], b[2], b[3]);
        _mm_storeu_ps(out, _mm_add_ps(_mm_add_ps(b[0], b[2]), _mm_add_ps(b[1], b[3])));
        return;
    }
#endif
    for (int u = 0; u < many; ++u) out[u] = sum16(parts[u]);
}

/* For each of up to four thresholds sum w a and sum w over the weights of at least that magnitude. */
GT_INLINE void moments_above(const block *b, const float *least, int many, float wa[MANY], float w[MANY]) {
    float parts[2][MANY][16] __attribute__((aligned(64)));
    for (int o = 0; o < 16; o += VW) {
        vf p[MANY] = {{0}}, q[MANY] = {{0}};
        for (int i = o; i < SUPER; i += 16) {
            vf a = vf_load(b->a + i), weight = vf_load(b->w + i), product = vf_load(b->wa + i);
            for (int u = 0; u < many; ++u) {
                p[u] = add_above(p[u], a, vf_set1(least[u]), product);
                q[u] = add_above(q[u], a, vf_set1(least[u]), weight);
            }
        }
        for (int u = 0; u < many; ++u) {
            vf_store(parts[0][u] + o, p[u]);
            vf_store(parts[1][u] + o, q[u]);
        }
    }
    sums16(parts[0], many, wa);
    sums16(parts[1], many, w);
}

/* The best prefix so far: what was its threshold, its least-squares d, and how much that lowers the error. */
typedef struct {
    float gain, d, least;
} fit;

/* Tries the prefixes of magnitudes at least `least`. */
GT_INLINE fit try_prefixes(const block *b, const float *least, int many, fit best) {
    float wa[MANY], w[MANY];
    moments_above(b, least, many, wa, w);
    for (int u = 0; u < many; ++u) {
        float d = w[u] > 0.0f ? wa[u] / w[u] : 0.0f, gain = d * wa[u];
        if (gain > best.gain) best = (fit){gain, d, least[u]};
    }
    return best;
}

static float storable(float d, const block *b) {
    return round_to_f16(vf_set1(d * b->power))[0] * (1.0f / b->power);
}

static float root(float x) { return vf_sqrt(vf_set1(x))[0]; }

#define STEPS 8

/* The d of the best prefix, or nearly: half of every d tried is the threshold that goes with it. */
static float search_steps(const block *b) {
    float least[MANY] = {0.0f, 0.5f * b->largest}, wa[MANY], w[MANY]; /* all weights; what the reference would keep */
    moments_above(b, least, 2, wa, w);
    float mean = wa[0] / w[0], d = wa[1] / w[1];
    float step = root(root(root(b->largest / mean))), half = root(step), quarter = root(half);
    float next = 0.5f * mean * half;
    fit best = {d * wa[1], d, least[1]};
    for (int k = 0; k < STEPS; k += MANY) {
        for (int u = 0; u < MANY; ++u, next *= step) least[u] = next;
        best = try_prefixes(b, least, MANY, best);
    }
    const float around[MANY] = {best.least / half, best.least / quarter, best.least * quarter, best.least * half};
    best = try_prefixes(b, around, MANY, best);
    least[0] = 0.5f * best.d;
    return try_prefixes(b, least, 1, best).d;
}

static float search_all(const block *b) {
    fit best = {0.0f, 0.0f, 0.0f};
    for (int i = 0; i < SUPER; i += MANY) best = try_prefixes(b, b->a + i, MANY, best);
    return best.d;
}

/* The best of the binary16 values around d, because subnormal ones are far apart, and the reference's choice; 0 if
 * none is better than that. */
static float best_subnormal(const block *b, float d) {
    float step = LEAST_SCALE / b->power, near[MANY] = {d, d + step, d - step, b->largest};
    float least[MANY], wa[MANY], w[MANY], most = 0.0f, best = 0.0f;
    for (int u = 0; u < MANY; ++u) {
        near[u] = storable(near[u], b);
        least[u] = 0.5f * near[u];
    }
    moments_above(b, least, MANY, wa, w);
    for (int u = 0; u < MANY; ++u) {
        float gain = near[u] * (2.0f * wa[u] - near[u] * w[u]);
        if (gain > most) {
            most = gain;
            best = near[u];
        }
    }
    return best;
}

static float choose_scale(const block *b, int effort) {
    float d = storable(effort == GT_BEST ? search_all(b) : search_steps(b), b);
    return (d * b->power < 0x1p-14f ? best_subnormal(b, d) : d) * b->power;
}

/* False if no scale could express the block. */
static int fill_block(block *b, const float *x, const float *w, float largest) {
    if (largest < 0.5f * LEAST_SCALE) return 0;
    if (largest > FAR) largest = FAR;
    vf power = power_of_two_of(vf_set1(largest)), inverse = inverse_power(power);
    b->power = power[0];
    b->largest = largest * inverse[0];
    for (int i = 0; i < SUPER; i += VW) {
        vf a = vf_min(vf_abs(vf_load(x + i)), vf_set1(FAR)) * inverse, weight = w ? vf_load(w + i) : vf_set1(1.0f);
        vf_store(b->a + i, a);
        vf_store(b->w + i, weight);
        vf_store(b->wa + i, weight * a);
    }
    return 1;
}

static int is_ternary(const float *x, float largest) {
    for (int i = 0; i < SUPER; i += VW) {
        vf a = vf_abs(vf_load(x + i));
        if (any_lane((a != vf_set1(largest)) & (a != vf_set1(0.0f)))) return 0;
    }
    return 1;
}

GT_INLINE void encode_ternary(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt,
                              void (*put)(const float *, float, float, uint8_t *), int bytes) {
    if (opt->objective == GT_MSE) w = NULL;
    for (int64_t i = 0; i < n; i += SUPER, out += bytes) {
        float largest = largest_of(x + i, SUPER), d = 0.0f;
        block b;
        if (opt->effort == GT_FAST || is_ternary(x + i, largest)) {
            put_capped(x + i, SUPER, largest, put, out);
            continue;
        }
        if (fill_block(&b, x + i, w ? w + i : NULL, largest)) d = choose_scale(&b, opt->effort);
        put(x + i, d, inverse_or_zero(d), out);
    }
}

static void tq1_0_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_ternary(x, w, n, out, opt, put_tq1_0, 54);
}

static void tq2_0_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    encode_ternary(x, w, n, out, opt, put_tq2_0, 66);
}

/* ---- decoders ---- */

static void tq2_0_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += SUPER, in += 66) {
        const vf d = vf_set1(f16_load(in + 64));
        for (int half = 0; half < 2; ++half)
            for (int l = 0; l < 32; l += VW) {
                vi codes = vi_load_u8(in + 32 * half + l);
#pragma GCC unroll 4
                for (int g = 0; g < 4; ++g)
                    vf_store(y + i + 128 * half + 32 * g + l, vf_from_int((codes >> (2 * g) & 3) - 1) * d);
            }
    }
}

/* VW bytes, `digits` trits of each, a stride apart. */
GT_INLINE void spread_trits(const uint8_t *in, int digits, int stride, vf d, float *y) {
    vi b = vi_load_u8(in);
    for (int n = 0; n < digits; ++n) {
        vi v = b + b + b;
        vf_store(y + n * stride, vf_from_int((v >> 8) - 1) * d);
        b = v & 255;
    }
}

static void tq1_0_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += SUPER, in += 54) {
        const float d = f16_load(in + 52);
        for (int l = 0; l < 32; l += VW) spread_trits(in + l, 5, 32, vf_set1(d), y + i + l);
        for (int l = 0; l < 16; l += VW) spread_trits(in + 32 + l, 5, 16, vf_set1(d), y + i + 160 + l);
        for (int l = 0; l < 4; ++l) {
            uint32_t b = in[48 + l];
            for (int k = 0; k < 4; ++k, b = b * 3 & 255) y[i + 240 + 4 * k + l] = (float)((int)(b * 3 >> 8) - 1) * d;
        }
    }
}

const gt_codec GT_FN(gt_ternary)[] = {
    {34, SUPER, 54, 0, tq1_0_encode, tq1_0_decode}, {35, SUPER, 66, 0, tq2_0_encode, tq2_0_decode}, {0}};
