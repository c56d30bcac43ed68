/* The codebooks of the ik_llama.cpp types: integers, the base tables. The shifted table of a type is its base table
 * plus a constant, and one bit of each sub-block chooses between the two. */
#ifndef GGUFTOOL_IK_VALUES_H
#define GGUFTOOL_IK_VALUES_H

#include <stdint.h>

#define IK_TABLE static const int8_t __attribute__((unused, aligned(16)))

enum { IK_SHIFT_4 = 4, IK_SHIFT_5 = 2, IK_SHIFT_6 = 1, IK_SHIFT_3 = 4, IK_SHIFT_2 = 5 };

/* iq4_kss, iq4_ks, iq4_k, and the scales of sub-blocks of iq2_kt and iq1_kt */
IK_TABLE ik_values_4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* iq5_k, iq5_ks */
IK_TABLE ik_values_5[32] = {-126, -114, -103, -92, -83, -74, -65, -57, -50, -43, -36, -30, -24, -18, -12, -6,
                            -1,   5,    11,   17,  23,  29,  36,  43,  51,  59,  68,  77,  87,  97,  109, 121};

/* iq6_k */
IK_TABLE ik_values_6[64] = {-127, -121, -115, -109, -104, -98, -93, -88, -84, -79, -74, -70, -66, -62, -58, -54,
                            -51,  -47,  -44,  -40,  -37,  -34, -31, -28, -25, -22, -19, -16, -13, -11, -8,  -5,
                            -2,   0,    3,    6,    9,    12,  14,  17,  20,  23,  27,  30,  33,  36,  40,  44,
                            47,   51,   55,   59,   63,   68,  72,  77,  82,  87,  92,  98,  103, 109, 115, 121};

/* iq3_k, iq3_ks: eight, twice, so that a lookup of sixteen can be used */
IK_TABLE ik_values_3[16] = {-63, -40, -23, -10, 1, 13, 28, 47, -63, -40, -23, -10, 1, 13, 28, 47};

/* iq2_k, iq2_ks: four, four times */
IK_TABLE ik_values_2[16] = {-31, -13, 1, 17, -31, -13, 1, 17, -31, -13, 1, 17, -31, -13, 1, 17};

/* iq2_kl: the first and the second of each of its 32 pairs, all values of iq3_k */
IK_TABLE ik_values_kl[2][32] = {
    {-63, -63, -40, -40, -40, -40, -23, -23, -23, -23, -23, -10, -10, -10, -10, 1,
     1,   1,   1,   1,   13,  13,  13,  13,  13,  28,  28,  28,  28,  28,  47,  47},
    {-23, 13, -63, -10, 13,  47,  -40, -23, 1,  13,  28,  -63, 1,  13, 47,  -23,
     -10, 1,  13,  28,  -40, -23, -10, 1,   13, -63, -23, 1,   28, 47, -23, 13},
};

#endif
