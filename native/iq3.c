/* Encoders of IQ3_XXS and IQ3_S. */
#include "gguftool.h"

const gt_codec GT_FN(gt_iq3)[] = {{0}};
