/* Q6_0, Q8_KV and the ternary types of ik_llama.cpp. */
#include "gguftool.h"

const gt_codec GT_FN(gt_ik_plain)[] = {{0}};
