/* Encoders of IQ2_KS, IQ2_KL and IQ3_KS. */
#include "gguftool.h"

const gt_codec GT_FN(gt_iq_low)[] = {{0}};
