/* IQ4_NL and IQ4_XS. */
#include "gguftool.h"

const gt_codec GT_FN(gt_iq4)[] = {{0}};
