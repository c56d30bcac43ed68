/* Encoders of IQ1_S and IQ1_M. */
#include "gguftool.h"

const gt_codec GT_FN(gt_iq1)[] = {{0}};
