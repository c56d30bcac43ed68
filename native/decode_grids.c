/* Decoders of the grid types IQ1, IQ2 and IQ3. */
#include "gguftool.h"

const gt_codec GT_FN(gt_grids_decode)[] = {{0}};
