/* The codebooks of the trellis types, sorted into cells.
 *
 * gen(seed): x = seed; N times x = x * 0xCBAC1FED mod 2^32, value = the sum of the four bytes of x & 0x3F3F3F3F, less
 * 126. A code is a seed less an offset, so a codebook is 8192 to 65536 nearly Gaussian points of 8 or 4 dimensions, in
 * no order at all. Here they are put in one: every coordinate is cut into two, four or eight bins of equal population, a
 * cell is a tuple of bins, and the points lie cell by cell, sixteen to a vector. The least distance from a target to a
 * cell is a sum over coordinates, so those to all cells are sums of entries of two short tables, one for each half of
 * the coordinates, whatever the weights of the coordinates are.
 *
 * The tables (2.9 MB for all types) are made at the first use of a type, in a hundredth of a second, by whichever thread
 * comes first; they are integers, the same everywhere, and do not change. It is the only memory that kernels share.
 */
#ifndef GGUFTOOL_KT_CODEBOOK_H
#define GGUFTOOL_KT_CODEBOOK_H

#include "bytes.h"
#include "gguftool.h"

#define UNIT 64    /* coordinates are kept in 64ths, so that distances can be taken in integers */
#define GROUP 16   /* points of a vector */
#define MAX_TUPLES 8 /* of the bins of a quarter of the coordinates */
#define MAX_HALF (MAX_TUPLES * MAX_TUPLES)
#define MAX_CELLS (MAX_HALF * MAX_HALF)
#define MAX_BINS 8
#define FIRST_SEED 4096
#define LEVELS 253 /* values are -126 .. 126 */
#define LARGEST 126

/* What of a codebook the compiler shall know: a point's coordinates, the bins of the even and the odd ones, and how
 * many tuples of bins a quarter of the coordinates has: the cells are its fourth power. */
typedef struct {
    int dims, bins[2], tuples;
} shape;

typedef struct {
    shape f;
    int bits;         /* of a code */
    uint32_t seed;    /* of code 0 */
    int magnitudes;   /* the codebook is of magnitudes, signs are stored apart */
    int16_t *points;  /* [vector][pair of coordinates][GROUP][2], times UNIT */
    uint16_t *codes;  /* of the points, as they lie */
    uint32_t *starts; /* the first point of each cell; one more ends the last */
    int16_t low[2][MAX_BINS], high[2][MAX_BINS]; /* of even and odd coordinates' bins: least and largest, times UNIT */
    int state;                                   /* 0: to be made, 1: being made, 2: made */
} codebook;

enum { BOOK_IQ2, BOOK_IQ3, BOOK_IQ4, BOOK_IQ4_ODD, BOOK_IQ1, BOOKS };

#define SHAPE_IQ23 {8, {4, 2}, 8}
#define SHAPE_IQ4 {4, {8, 8}, 8}
#define SHAPE_IQ1 {8, {2, 2}, 4}

#define TABLES(name, dims, points, cells)                                         \
    static int16_t name##_points[(points) * (dims)] __attribute__((aligned(64))); \
    static uint16_t name##_codes[points];                                         \
    static uint32_t name##_starts[(cells) + 1];
TABLES(iq2, 8, 65536, 4096)
TABLES(iq3, 8, 65536, 4096)
TABLES(iq4, 4, 32768, 4096)
TABLES(iq4_odd, 4, 32768, 4096)
TABLES(iq1, 8, 8192, 256)

#define BOOK(shape, bits, seed, magnitudes, name) \
    {shape, bits, seed, magnitudes, name##_points, name##_codes, name##_starts, {{0}}, {{0}}, 0}
static codebook books[BOOKS] = {
    BOOK(SHAPE_IQ23, 16, FIRST_SEED, 0, iq2), BOOK(SHAPE_IQ23, 16, FIRST_SEED, 1, iq3),
    BOOK(SHAPE_IQ4, 15, FIRST_SEED, 0, iq4),  BOOK(SHAPE_IQ4, 15, FIRST_SEED + 32768, 0, iq4_odd),
    BOOK(SHAPE_IQ1, 13, FIRST_SEED, 0, iq1),
};

/* The first n values of a seed. */
GT_INLINE void generate(uint32_t seed, int n, int magnitudes, int *values) {
    uint32_t x = seed;
    for (int j = 0; j < n; ++j) {
        x *= 0xCBAC1FEDu;
        uint32_t y = x & 0x3F3F3F3Fu;
        int v = (int)((y & 255) + (y >> 8 & 255) + (y >> 16 & 255) + (y >> 24)) - LARGEST;
        values[j] = magnitudes && v < 0 ? -v : v;
    }
}

/* bin_of[v + LARGEST] for n bins of about equal population, and their ends. */
static void cut(const uint32_t histogram[LEVELS], int n, uint8_t bin_of[LEVELS], int16_t *low, int16_t *high) {
    uint64_t total = 0, sum = 0;
    for (int v = 0; v < LEVELS; ++v) total += histogram[v];
    for (int k = 0; k < n; ++k) {
        low[k] = (LARGEST + 1) * UNIT;
        high[k] = -(LARGEST + 1) * UNIT;
    }
    for (int v = 0; v < LEVELS; ++v) {
        int k = (int)((2 * sum + histogram[v]) * (uint64_t)n / (2 * total + 1));
        int16_t value = (int16_t)((v - LARGEST) * UNIT);
        bin_of[v] = (uint8_t)k;
        sum += histogram[v];
        if (histogram[v] == 0) continue;
        low[k] = value < low[k] ? value : low[k];
        high[k] = value > high[k] ? value : high[k];
    }
}

/* Cuts the coordinates: alike in all codebooks of a shape, for it looks at the values of 65536 seeds. */
static void cut_book(codebook *b, uint8_t bin_of[2][LEVELS]) {
    uint32_t histogram[LEVELS] = {0};
    int v[8];
    for (uint32_t seed = FIRST_SEED; seed < FIRST_SEED + 65536; ++seed) {
        generate(seed, b->f.dims, b->magnitudes, v);
        for (int j = 0; j < b->f.dims; ++j) ++histogram[v[j] + LARGEST];
    }
    for (int j = 0; j < 2; ++j) cut(histogram, b->f.bins[j], bin_of[j], b->low[j], b->high[j]);
}

/* The values of a code, and the cell that they lie in. */
static uint32_t place(const codebook *b, uint8_t bin_of[2][LEVELS], uint32_t code, int v[8]) {
    uint32_t cell = 0;
    generate(code + b->seed, b->f.dims, b->magnitudes, v);
    for (int j = 0; j < b->f.dims; ++j) cell = cell * (uint32_t)b->f.bins[j % 2] + bin_of[j % 2][v[j] + LARGEST];
    return cell;
}

static void make_book(codebook *b) {
    const uint32_t n = 1u << b->bits, n_cells = (uint32_t)(b->f.tuples * b->f.tuples * b->f.tuples * b->f.tuples);
    uint8_t bin_of[2][LEVELS];
    int v[8];
    cut_book(b, bin_of);
    for (uint32_t code = 0; code < n; ++code) ++b->starts[place(b, bin_of, code, v) + 1];
    for (uint32_t c = 0; c < n_cells; ++c) b->starts[c + 1] += b->starts[c];
    for (uint32_t code = 0; code < n; ++code) { /* starts[c] runs to the end of cell c ... */
        uint32_t at = b->starts[place(b, bin_of, code, v)]++;
        int16_t *p = b->points + (size_t)(at / GROUP) * GROUP * (size_t)b->f.dims + at % GROUP * 2;
        b->codes[at] = (uint16_t)code;
        for (int j = 0; j < b->f.dims; ++j) p[j / 2 * 2 * GROUP + j % 2] = (int16_t)(v[j] * UNIT);
    }
    for (uint32_t c = n_cells; c > 0; --c) b->starts[c] = b->starts[c - 1]; /* ... which is where the next one starts */
    b->starts[0] = 0;
}

/* The codebook, made if nobody has done so; whoever comes while it is being made waits. */
static const codebook *open_book(int which) {
    codebook *b = &books[which];
    int none = 0;
    if (__atomic_load_n(&b->state, __ATOMIC_ACQUIRE) == 2) return b;
    if (__atomic_compare_exchange_n(&b->state, &none, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        make_book(b);
        __atomic_store_n(&b->state, 2, __ATOMIC_RELEASE);
    }
    while (__atomic_load_n(&b->state, __ATOMIC_ACQUIRE) != 2) {}
    return b;
}

#endif
