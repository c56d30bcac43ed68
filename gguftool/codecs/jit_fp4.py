"""MXFP4 and NVFP4 in numba: decoders. native/fp4.c tells the layouts."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguftool.codecs.jit_bits import Kernel, kernel

#: The sixteen codes' values, doubled; the factor of a half is in the scales.
LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
#: The scale of every byte: 2^(e - 128).
MXFP4_SCALES = np.exp2(np.arange(-128.0, 128.0)).astype(np.float32)
#: Half of a float of four exponent and three mantissa bits; 0x7f is none, and the sign is not looked at.
NVFP4_SCALES = np.array(
    [
        0.0 if c == 0x7F else np.ldexp(c & 7, -10) if c & 0x78 == 0 else np.ldexp(8 + (c & 7), (c >> 3 & 15) - 11)
        for c in range(256)
    ],
    np.float32,
)


@kernel
def decode_mxfp4(row: Any, y: Any) -> None:
    for b in range(y.size // 32):
        at = 17 * b
        d = MXFP4_SCALES[row[at]]
        for i in range(16):
            y[32 * b + i] = LEVELS[row[at + 1 + i] & 15] * d
            y[32 * b + 16 + i] = LEVELS[row[at + 1 + i] >> 4] * d


@kernel
def decode_nvfp4(row: Any, y: Any) -> None:
    for g in range(y.size // 16):
        at = 36 * (g // 4)
        d = NVFP4_SCALES[row[at + g % 4]]
        for i in range(8):
            q = row[at + 4 + 8 * (g % 4) + i]
            y[16 * g + i] = LEVELS[q & 15] * d
            y[16 * g + 8 + i] = LEVELS[q >> 4] * d


DECODERS: dict[str, Kernel] = {"mxfp4": decode_mxfp4, "nvfp4": decode_nvfp4}
