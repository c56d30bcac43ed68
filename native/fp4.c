/* MXFP4 and NVFP4. */
#include "gguftool.h"

const gt_codec GT_FN(gt_fp4)[] = {{0}};
