/* What every kernel file shares: the shape of an encoder and a decoder, and the table in which they are found.
 *
 * A kernel file is plain C11 with GCC/Clang vector extensions. It is compiled once per instruction set
 * (GT_ISA = base, avx2, avx512), at that set's native vector width, with -ffp-contract=off. Every public symbol
 * goes through GT_FN(name), which appends the instruction set. No libm, no allocation, no globals that change.
 *
 * Contract of an encoder: x holds n finite floats (n a multiple of the block), w holds n positive weights of
 * at most 2 and at least 2^-60 (prepared from an importance matrix) or is NULL; out gets the row's bytes. Whatever x
 * is, every stored scale is finite. The bytes depend on x, w and the options alone: not on the instruction set.
 */
#ifndef GGUFTOOL_H
#define GGUFTOOL_H

#include <stddef.h>
#include <stdint.h>

/* GT_UNBIASED never reaches a kernel: module.c asks for GT_IMATRIX and gives the row its gain back (gain.h). */
enum gt_objective { GT_IMATRIX = 0, GT_REF = 1, GT_MSE = 2, GT_UNBIASED = 3 };
enum gt_effort { GT_FAST = 0, GT_DEFAULT = 1, GT_BEST = 2 };

typedef struct {
    int objective; /* enum gt_objective: what the search minimises; GT_IMATRIX without w is the plain squared error */
    int effort;    /* enum gt_effort */
} gt_options;

typedef void (*gt_encode_row)(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt);
typedef void (*gt_decode_row)(const uint8_t *in, int64_t n, float *y);

typedef struct {
    int id;                /* ggml type id */
    int block_size;        /* elements */
    int block_bytes;
    int row_header;        /* bytes in front of every row */
    gt_encode_row encode;  /* NULL: this type cannot be encoded yet */
    gt_decode_row decode;  /* NULL: this type cannot be decoded yet */
} gt_codec;

#ifndef GT_ISA
#define GT_ISA base /* module.c and dispatch.c are compiled once and call through tables */
#endif
#define GT_CAT2(a, b) a##_##b
#define GT_CAT(a, b) GT_CAT2(a, b)
#define GT_FN(name) GT_CAT(name, GT_ISA)

/* One table per family and instruction set, ended by an entry with block_size 0. A type may stand in several tables:
 * dispatch.c joins them, taking the encoder and the decoder from whichever entry has one. */
#define GT_DECLARE_FAMILY(isa)                       \
    extern const gt_codec gt_floats_##isa[];         \
    extern const gt_codec gt_legacy_##isa[];         \
    extern const gt_codec gt_kquants_decode_##isa[]; \
    extern const gt_codec gt_kquants_affine_##isa[]; \
    extern const gt_codec gt_kquants_symmetric_##isa[]; \
    extern const gt_codec gt_grids_decode_##isa[];   \
    extern const gt_codec gt_iq4_##isa[];            \
    extern const gt_codec gt_iq3_##isa[];            \
    extern const gt_codec gt_iq2_##isa[];            \
    extern const gt_codec gt_iq1_##isa[];            \
    extern const gt_codec gt_ternary_##isa[];        \
    extern const gt_codec gt_lowbit_##isa[];         \
    extern const gt_codec gt_fp4_##isa[];            \
    extern const gt_codec gt_ik_decode_##isa[];      \
    extern const gt_codec gt_kt_decode_##isa[];      \
    extern const gt_codec gt_iq_k_##isa[];           \
    extern const gt_codec gt_iq_ks_##isa[];          \
    extern const gt_codec gt_iq_low_##isa[];         \
    extern const gt_codec gt_iq_kt_##isa[];          \
    extern const gt_codec gt_ik_plain_##isa[];

/* Q4_0, Q4_1, Q5_0 and Q5_1 without weights are a closed form (legacy.c, whose table holds these types); with weights
 * they are a search that lives in the family of the same shape. legacy.c chooses between the two. Q6_0, of ik_llama.cpp,
 * is one of that family, always searched. */
void GT_FN(gt_search_q4_0)(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt);
void GT_FN(gt_search_q5_0)(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt);
void GT_FN(gt_search_q6_0)(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt);
void GT_FN(gt_search_q4_1)(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt);
void GT_FN(gt_search_q5_1)(const float *x, const float *w, int64_t n, uint8_t *out, const gt_options *opt);

/* measure.c: the first column whose magnitude, as IEEE bits, is `limit` or more (NaN is above all), or -1. */
typedef int64_t (*gt_first_unfit)(const float *x, int64_t n, uint32_t limit);
/* Adds a row's sums of a e^2, a x^2, e^2 and x^2 to sums[4]; e = x - y; a may be NULL (all ones). */
typedef void (*gt_error_row)(const float *x, const float *y, const double *a, int64_t n, double sums[4]);

/* dispatch.c: one instruction set's kernels. */
typedef struct {
    const char *name;
    gt_first_unfit first_unfit;
    gt_error_row error_row;
    const gt_codec *const *families; /* ended by NULL */
} gt_isa_set;

/* The best set this processor runs, or the named one; NULL when there is no such set here. */
const gt_isa_set *gt_choose_isa(const char *name);
/* The names of the sets this processor runs, worst first, ended by NULL. */
const char *const *gt_usable_isas(void);
/* The joined entry of a type; block_size 0 when no table knows the id. */
gt_codec gt_find_codec(const gt_isa_set *isa, int id);

#endif
