/* Encoders of IQ2_K, IQ3_K, IQ4_K, IQ5_K and IQ6_K. */
#include "gguftool.h"

const gt_codec GT_FN(gt_iq_k)[] = {{0}};
