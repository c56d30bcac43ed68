/* TQ1_0, TQ2_0, Q1_0 and Q2_0. */
#include "gguftool.h"

const gt_codec GT_FN(gt_ternary)[] = {{0}};
