/* The nearest entry of a codebook: the tables of IQ2_K .. IQ6_K and their relatives, 4 to 64 integers.
 *
 * The entries are nearly a cubic polynomial of their numbers, so a polynomial of t gives back the number, its *place*
 * u: good to half a step, which is enough. If, wherever nearest entries change from k to k + 1, u lies between k and
 * k + 1, then entries floor(u) and floor(u) + 1 are the only ones to compare, and the result is exact; it does not
 * matter how u was rounded or fused. The polynomials were found by linear programming, for the greatest distance of all
 * these u from integers (0.035 for V5, 0.15 to 0.29 for the others), and such that two more things hold:
 *   - they are right for the shifted table too, that is V + shift: its two entries are those of t - shift, and have
 *     the same numbers. So one place and one pair of lookups serve both tables;
 *   - the even part is one constant (V6: and a square), so that a scale and its negative share most of the work.
 *
 * u is kept as 128 + u: the upper half of such a float ends in the whole part of u, and entries, being small integers,
 * are upper halves of floats as well. So AVX-512 permutes words: 32 or 64 entries at once, no rounding, no conversion.
 * AVX2 permutes pairs of words, eight at a time; others load them.
 */
#ifndef GGUFTOOL_CODEBOOK_H
#define GGUFTOOL_CODEBOOK_H

#include "bytes.h"
#include "vec.h"

typedef struct {
    int entries;                /* 4, 8, 16, 32 or 64 */
    int terms;                  /* odd powers in use: 1, 2 or 4; with 4 the square too */
    float limit;                /* a t beyond this belongs to the last pair of either side */
    float even[2], odd[4];      /* u = even[0] + even[1] t^2 + t (odd[0] + odd[1] t^2 + ...) */
    float shift;                /* of the other table */
    const uint16_t *words;      /* entries and padding, as upper halves of floats */
} codebook;

/* A small integer as the upper half of a float. */
#define CB_SIZE(v) ((v) < 0 ? -(v) : (v))
#define CB_LOG(a) ((a) >= 64 ? 6 : (a) >= 32 ? 5 : (a) >= 16 ? 4 : (a) >= 8 ? 3 : (a) >= 4 ? 2 : (a) >= 2 ? 1 : 0)
#define CB_HALF(v, a) ((v) < 0 ? 0x8000 : 0) + ((127 + CB_LOG(a)) << 7) + ((a) << (7 - CB_LOG(a))) - 128
#define CB(v) (v) == 0 ? 0 : CB_HALF(v, CB_SIZE(v))

static const uint16_t V2_WORDS[40] = {CB(-31), CB(-13), CB(1), CB(17)};
static const uint16_t V3_WORDS[40] = {CB(-63), CB(-40), CB(-23), CB(-10), CB(1), CB(13), CB(28), CB(47)};
static const uint16_t V4_WORDS[40] = {CB(-127), CB(-104), CB(-83), CB(-65), CB(-49), CB(-35), CB(-22), CB(-10),
                                      CB(1),    CB(13),   CB(25),  CB(38),  CB(53),  CB(69),  CB(89),  CB(113)};
static const uint16_t V5_WORDS[40] = {CB(-126), CB(-114), CB(-103), CB(-92), CB(-83), CB(-74), CB(-65), CB(-57),
                                      CB(-50),  CB(-43),  CB(-36),  CB(-30), CB(-24), CB(-18), CB(-12), CB(-6),
                                      CB(-1),   CB(5),    CB(11),   CB(17),  CB(23),  CB(29),  CB(36),  CB(43),
                                      CB(51),   CB(59),   CB(68),   CB(77),  CB(87),  CB(97),  CB(109), CB(121)};
static const uint16_t V6_WORDS[72] = {
    CB(-127), CB(-121), CB(-115), CB(-109), CB(-104), CB(-98), CB(-93), CB(-88), CB(-84), CB(-79), CB(-74),
    CB(-70),  CB(-66),  CB(-62),  CB(-58),  CB(-54),  CB(-51), CB(-47), CB(-44), CB(-40), CB(-37), CB(-34),
    CB(-31),  CB(-28),  CB(-25),  CB(-22),  CB(-19),  CB(-16), CB(-13), CB(-11), CB(-8),  CB(-5),  CB(-2),
    CB(0),    CB(3),    CB(6),    CB(9),    CB(12),   CB(14),  CB(17),  CB(20),  CB(23),  CB(27),  CB(30),
    CB(33),   CB(36),   CB(40),   CB(44),   CB(47),   CB(51),  CB(55),  CB(59),  CB(63),  CB(68),  CB(72),
    CB(77),   CB(82),   CB(87),   CB(92),   CB(98),   CB(103), CB(109), CB(115), CB(121)};

static const codebook V2 __attribute__((unused)) = {4, 1, 23.0f, {1.7f, 0.0f}, {0.05f}, 5.0f, V2_WORDS};
static const codebook V3 __attribute__((unused)) = {
    8, 2, 52.5f, {3.68956553f, 0.0f}, {0.0865849433f, -1.05548162e-05f}, 4.0f, V3_WORDS};
static const codebook V4 __attribute__((unused)) = {
    16, 2, 116.5f, {7.70121145f, 0.0f}, {0.0825523861f, -1.62499297e-06f}, 4.0f, V4_WORDS};
static const codebook V5 __attribute__((unused)) = {
    32, 2, 121.0f, {15.8450402f, 0.0f}, {0.162954729f, -2.64649106e-06f}, 2.0f, V5_WORDS};
static const codebook V6 __attribute__((unused)) = {
    64, 4, 125.0f, {32.6553841f, -6.97685015e-05f}, {0.359162902f, -1.59547167e-05f, 1.08815562e-09f, -3.32704159e-14f},
    1.0f, V6_WORDS};

/* ---- the place ---- */

/* a * b + c, rounded once or twice: only where that does not matter. */
GT_INLINE vf mul_add(vf a, vf b, vf c) {
#if VW == 16
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
    return a * b + c;
#endif
}

GT_INLINE vf cut_to(vf t, float limit) {
#if VW == 16
    return (vf)_mm512_range_ps((__m512)t, _mm512_set1_ps(limit), 2); /* the lesser magnitude, t's sign */
#else
    return vf_min(vf_max(t, vf_set1(-limit)), vf_set1(limit));
#endif
}

/* 128 + u of t and of -t. */
GT_INLINE void places_of(vf t, const codebook *c, vf *plus, vf *minus) {
    vf near = cut_to(t, c->limit), square = near * near, odd = vf_set1(c->odd[c->terms - 1]);
    for (int k = c->terms - 2; k >= 0; --k) odd = mul_add(odd, square, vf_set1(c->odd[k]));
    vf even = vf_set1(c->even[0] + 128.0f);
    if (c->terms == 4) even = mul_add(square, vf_set1(c->even[1]), even);
    *plus = mul_add(near, odd, even);
    *minus = mul_add(-near, odd, even);
}

GT_INLINE vf place_of(vf t, const codebook *c) {
    vf plus, minus;
    places_of(t, c, &plus, &minus);
    return plus;
}

/* ---- its pair of entries ---- */

#if VW == 16
typedef struct {
    __m512i low[2], high[2];
} book;
GT_INLINE book open_book(const codebook *c) {
    const uint16_t *w = c->words, *more = c->entries > 32 ? w + 32 : w;
    return (book){{_mm512_loadu_si512(w), _mm512_loadu_si512(more)},
                  {_mm512_loadu_si512(w + 1), _mm512_loadu_si512(more + 1)}};
}
GT_INLINE vf upper_words(vf place, const __m512i table[2], const codebook *c) {
    const __mmask32 upper = 0xaaaaaaaa;
    if (c->entries > 32) return (vf)_mm512_maskz_permutex2var_epi16(upper, table[0], (__m512i)place, table[1]);
    return (vf)_mm512_maskz_permutexvar_epi16(upper, (__m512i)place, table[0]);
}
GT_INLINE void pair_at(vf place, const book *b, const codebook *c, vf *low, vf *high) {
    *low = upper_words(place, b->low, c);
    *high = upper_words(place, b->high, c);
}
#elif VW == 8
typedef struct {
    __m256i pairs[8]; /* the lower entry in the lower half */
} book;
GT_INLINE book open_book(const codebook *c) {
    book b = {{{0}}};
    for (int k = 0; k < (c->entries + 7) / 8; ++k) {
        const uint8_t *w = (const uint8_t *)(c->words + 8 * k);
        b.pairs[k] = (__m256i)(vi_load_u16(w) | vi_load_u16(w + 2) << 16);
    }
    return b;
}
GT_INLINE void pair_at(vf place, const book *b, const codebook *c, vf *low, vf *high) {
    __m256i at = _mm256_srli_epi32((__m256i)place, 16), found[8];
    const int n = (c->entries + 7) / 8;
    for (int k = 0; k < n; ++k) found[k] = _mm256_permutevar8x32_epi32(b->pairs[k], at);
    for (int step = 1, bit = 12; step < n; step *= 2, --bit) {
        __m256 upper = (__m256)_mm256_slli_epi32((__m256i)place, bit); /* bits 19, 20, 21 */
        for (int k = 0; k < n; k += 2 * step)
            found[k] = (__m256i)_mm256_blendv_ps((__m256)found[k], (__m256)found[k + step], upper);
    }
    *low = (vf)_mm256_slli_epi32(found[0], 16);
    *high = (vf)_mm256_and_si256(found[0], _mm256_set1_epi32((int32_t)0xffff0000));
}
#else
typedef struct {
    const uint16_t *words;
} book;
GT_INLINE book open_book(const codebook *c) { return (book){c->words}; }
GT_INLINE void pair_at(vf place, const book *b, const codebook *c, vf *low, vf *high) {
    vi at = ((vi)place >> 16) & 63, l = {0}, h = {0};
    (void)c;
    for (int k = 0; k < VW; ++k) {
        const uint16_t *w = b->words + at[k];
        l[k] = (int32_t)((uint32_t)w[0] << 16);
        h[k] = (int32_t)((uint32_t)w[1] << 16);
    }
    *low = (vf)l;
    *high = (vf)h;
}
#endif

/* ---- which of the two ---- */

/* The nearer of two entries; of equally near ones the upper. */
GT_INLINE vf nearer_of(vf t, vf low, vf high) {
    vf twice = t + t, middle = low + high;
#if VW == 16
    __mmask16 above = _mm512_cmp_ps_mask((__m512)twice, (__m512)middle, _CMP_GE_OQ);
    return (vf)_mm512_mask_blend_ps(above, (__m512)low, (__m512)high);
#elif VW == 8
    __m256 above = _mm256_cmp_ps((__m256)twice, (__m256)middle, _CMP_GE_OQ);
    return (vf)_mm256_blendv_ps((__m256)low, (__m256)high, above);
#else
    return vf_select(twice >= middle, high, low);
#endif
}

/* The square of the lesser of two distances: rounding keeps the order of distances, so it is that of the nearest. */
GT_INLINE vf lesser_square(vf e, vf f) {
#if VW == 16
    vf least = (vf)_mm512_range_ps((__m512)e, (__m512)f, 6);
    return least * least;
#else
    return vf_min(e * e, f * f);
#endif
}

/* The entry nearest to t, and its number; for the shifted table ask for t - shift. */
GT_INLINE vf nearest_entry(vf t, const book *b, const codebook *c) {
    vf low, high;
    pair_at(place_of(t, c), b, c, &low, &high);
    return nearer_of(t, low, high);
}
GT_INLINE vi nearest_code(vf t, const book *b, const codebook *c) {
    vf low, high, place = place_of(t, c);
    pair_at(place, b, c, &low, &high);
    return (((vi)place >> 16) & 63) - (t + t >= low + high);
}

#endif
