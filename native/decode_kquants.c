#include "gguftool.h"
const gt_codec GT_FN(gt_kquants_decode)[] = {{0}};
