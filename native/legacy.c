#include "gguftool.h"
const gt_codec GT_FN(gt_legacy)[] = {{0}};
