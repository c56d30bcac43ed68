/* Q6_0, Q8_KV and the ternary types of ik_llama.cpp.
 *
 *   q6_0    26 bytes for 32: f16 d, 8 of high 2 bits, 16 of nibbles; y = (q - 32) * d
 *   q8_KV   row: f32 d, i32 sum of the row's codes; then a signed byte per weight, blocks of 32 only in name; y = q * d
 *   iq2_bn  row: f32 d. 16 bytes for 64: byte j holds elements j, j + 16, j + 32, j + 48; y = d * (q - 1), q < 3
 *   iq1_bn  row: f16 d. 13 bytes for 64: five trits a byte, and the last of each 16 in the thirteenth
 *
 * A byte of trits is N * 256 / 243, rounded up, N = sum of trit_j 3^j: as a fraction of 256 it is N / 243, so trit j
 * are the whole threes of the fraction that is left when the byte is multiplied by 3^(4-j).
 *
 * Q6_0 is Q5_0 with one bit more, and legacy_symmetric.c searches it; Q8_KV is rounded here. */
#include "gguftool.h"
#include "bytes.h"

typedef uint8_t b16 __attribute__((vector_size(16)));

/* Eight bytes, then zeros. */
GT_INLINE b16 b16_load_8(const uint8_t *p) {
    typedef uint64_t words __attribute__((vector_size(16)));
    uint64_t low;
    memcpy(&low, p, 8);
    return (b16)(words){low, 0};
}

GT_INLINE float f32_load(const uint8_t *p) { return f_from_bits(u32_load(p)); }

static void q6_0_decode(const uint8_t *in, int64_t n, float *y) {
    for (int64_t i = 0; i < n; i += 32, in += 26, y += 32) {
        const float d = f16_load(in);
        b16 both = b16_load_8(in + 2);
        uint8_t high[16]; /* of elements j (bits 0, 1) and j + 16 (2, 3) */
        both = __builtin_shuffle(both & 15, both >> 4, (b16){0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23});
        memcpy(high, &both, 16);
#pragma GCC unroll 4
        for (int j = 0; j < 16; j += VW) {
            const vi h = vi_load_u8(high + j), low = vi_load_u8(in + 10 + j);
            vf_store(y + j, vf_from_int(((low & 15) | (h << 4 & 48)) - 32) * d);
            vf_store(y + 16 + j, vf_from_int((low >> 4 | (h << 2 & 48)) - 32) * d);
        }
    }
}

static void q8_kv_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f32_load(in);
    in += 8;
    for (int64_t i = 0; i < n; i += VW) vf_store(y + i, vf_from_int(vi_load_i8(in + i)) * d);
}

static void iq2_bn_decode(const uint8_t *in, int64_t n, float *y) {
    const float d = f32_load(in);
    in += 4;
    for (int64_t i = 0; i < n; i += 64, in += 16, y += 64)
        for (int j = 0; j < 16; j += VW) {
            const vi codes = vi_load_u8(in + j);
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) vf_store(y + 16 * k + j, vf_from_int((codes >> 2 * k & 3) - 1) * d);
        }
}

static void iq1_bn_decode(const uint8_t *in, int64_t n, float *y) {
    static const uint16_t POWERS[16] = {81, 27, 9, 3, 1, 81, 27, 9, 3, 1, 81, 27, 9, 3, 1, 1};
    const float d = f16_load(in);
    in += 2;
    for (int64_t i = 0; i < n; i += 64, in += 13)
        for (int t = 0; t < 4; ++t, y += 16) {
            uint8_t trits[16];
            uint16_t left[16];
#pragma GCC unroll 16
            for (int j = 0; j < 15; ++j) left[j] = in[3 * t + j / 5];
            left[15] = (uint16_t)(in[12] * POWERS[t]);
            for (int j = 0; j < 16; ++j) trits[j] = (uint8_t)((left[j] * POWERS[j] & 255) * 3 >> 8);
#pragma GCC unroll 4
            for (int j = 0; j < 16; j += VW) vf_store(y + j, vf_from_int(vi_load_u8(trits + j) - 1) * d);
        }
}

/* There is nothing to search for: these are the reference's bytes. A tiny row is scaled first, so that the inverse of d
 * is never infinite; where d vanishes, zeros are stored. */
static void q8_kv_encode(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt) {
    vf m = {0};
    vi sum = {0};
    for (int64_t i = 0; i < n; i += VW) m = vf_max(m, vf_abs(vf_load(x + i)));
    const float largest = vf_max_of(m), d = largest / 127.0f, up = largest < 0x1p-60f ? 0x1p60f : 1.0f;
    const float inverse = d > 0.0f ? 1.0f / (d * up) : 0.0f;
    (void)w;
    (void)opt;
    for (int64_t i = 0; i < n; i += 32) {
        vi q[GT_NV(32)];
        for (int k = 0; k < GT_NV(32); ++k) {
            vf t = vf_load(x + i + k * VW) * up * inverse;
            q[k] = vi_round(vf_min(vf_max(t, vf_set1(-127.0f)), vf_set1(127.0f)));
            sum += q[k];
        }
        vi_store_bytes32(out + 8 + i, q);
    }
    int32_t parts[VW], total = 0;
    vi_store(parts, sum);
    for (int k = 0; k < VW; ++k) total += parts[k];
    u32_store(out, f_bits(d));
    u32_store(out + 4, (uint32_t)total);
}

const gt_codec GT_FN(gt_ik_plain)[] = {
    {133, 32, 26, 0, GT_FN(gt_search_q6_0), q6_0_decode},
    {134, 64, 13, 2, NULL, iq1_bn_decode},
    {135, 64, 16, 4, NULL, iq2_bn_decode},
    {151, 32, 32, 8, q8_kv_encode, q8_kv_decode},
    {0},
};
