/* Chooses the instruction set once, at import, and joins the families' tables. */
#include "gguftool.h"

#include <string.h>

#define GT_SET(isa)                                                                                              \
    GT_DECLARE_FAMILY(isa)                                                                                       \
    int64_t gt_first_unfit_##isa(const float *x, int64_t n, uint32_t limit);                                     \
    void gt_error_row_##isa(const float *x, const float *y, const double *a, int64_t n, double sums[4]);         \
    static const gt_codec *const families_##isa[] = {gt_floats_##isa,         gt_legacy_##isa,                   \
                                                     gt_kquants_decode_##isa, gt_kquants_affine_##isa,           \
                                                     gt_kquants_symmetric_##isa, gt_grids_decode_##isa,          \
                                                     gt_iq4_##isa,           gt_iq3_##isa,                       \
                                                     gt_iq2_##isa,           gt_iq1_##isa,                       \
                                                     gt_ternary_##isa,       gt_lowbit_##isa,                    \
                                                     gt_fp4_##isa,           gt_ik_decode_##isa,                 \
                                                     gt_kt_decode_##isa,     gt_iq_k_##isa,                      \
                                                     gt_iq_ks_##isa,         gt_iq_low_##isa,                    \
                                                     gt_iq_kt_##isa,         gt_ik_plain_##isa,                  \
                                                     NULL};                                                      \
    static const gt_isa_set set_##isa = {#isa, gt_first_unfit_##isa, gt_error_row_##isa, families_##isa};

GT_SET(base)
#ifdef GT_HAS_avx2
GT_SET(avx2)
#endif
#ifdef GT_HAS_avx512
GT_SET(avx512)
#endif

#ifdef GT_HAS_avx2
#include <cpuid.h>

/* __builtin_cpu_supports also asks whether the operating system saves the wide registers; f16c is not among the names
 * that every compiler knows. */
static int runs_avx2(void) {
    unsigned a, b, c, d;
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

#ifdef GT_HAS_avx512
static int runs_avx512(void) {
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

static const gt_isa_set *usable[4];
static const char *usable_names[4];

static void fill(void) {
    int n = 0;
    if (usable[0]) return;
    usable[n++] = &set_base;
#ifdef GT_HAS_avx2
    if (runs_avx2()) usable[n++] = &set_avx2;
#endif
#ifdef GT_HAS_avx512
    if (runs_avx512()) usable[n++] = &set_avx512;
#endif
    for (int i = 0; i < n; ++i) usable_names[i] = usable[i]->name;
}

const char *const *gt_usable_isas(void) {
    fill();
    return usable_names;
}

const gt_isa_set *gt_choose_isa(const char *name) {
    const gt_isa_set *best = NULL;
    fill();
    for (int i = 0; usable[i]; ++i)
        if (!name || strcmp(name, usable[i]->name) == 0) best = usable[i];
    return best;
}

gt_codec gt_find_codec(const gt_isa_set *isa, int id) {
    gt_codec found = {0};
    for (const gt_codec *const *family = isa->families; *family; ++family)
        for (const gt_codec *c = *family; c->block_size; ++c) {
            if (c->id != id) continue;
            gt_encode_row encode = found.encode ? found.encode : c->encode;
            gt_decode_row decode = found.decode ? found.decode : c->decode;
            found = *c;
            found.encode = encode;
            found.decode = decode;
        }
    return found;
}
