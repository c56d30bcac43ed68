/* Encoders of the trellis types of ik_llama.cpp. */
#include "gguftool.h"

const gt_codec GT_FN(gt_iq_kt)[] = {{0}};
