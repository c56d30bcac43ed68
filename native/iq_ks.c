/* Encoders of IQ4_KSS, IQ4_KS and IQ5_KS. */
#include "gguftool.h"

const gt_codec GT_FN(gt_iq_ks)[] = {{0}};
