/* Encoders of this family. */
#include "gguftool.h"

const gt_codec GT_FN(gt_kquants_symmetric)[] = {{0}};
