/* Encoders of IQ2_XXS, IQ2_XS and IQ2_S. */
#include "gguftool.h"

const gt_codec GT_FN(gt_iq2)[] = {{0}};
