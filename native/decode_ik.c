/* Decoders of the ik_llama.cpp types with scalar codebooks. */
#include "gguftool.h"

const gt_codec GT_FN(gt_ik_decode)[] = {{0}};
