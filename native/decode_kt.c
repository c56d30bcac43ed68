/* Decoders of the trellis types of ik_llama.cpp. */
#include "gguftool.h"

const gt_codec GT_FN(gt_kt_decode)[] = {{0}};
