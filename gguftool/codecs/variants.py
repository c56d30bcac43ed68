"""The second decode of IQ6_K.

Its 64 values come from a cubic polynomial. The matrix kernels of ik_llama.cpp use it rounded to integers, and so do
our kernels; its to_float evaluates the polynomial itself, in float32 with fused multiply-adds, and gives values that
differ by up to half a step of the table. That one is for comparison with ik_llama.cpp, bit by bit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK_BYTES = 212


def _polynomial() -> npt.NDArray[np.float32]:
    """float32 [shift, code]: -127 + q (6.2568 + q (-0.11218 + q 0.0011972)) + shift.

    A product of a code (6 bits) and a float32, plus a float32, is exact in float64 here, so rounding it to float32 is
    what the fused operation does.
    """
    q = np.arange(64, dtype=np.float64)
    value = np.full(64, np.float32(0.0011972))
    for constant in (np.float32(-0.11218), np.float32(6.2568), np.float32(-127)):
        value = (value.astype(np.float64) * q + np.float64(constant)).astype(np.float32)
    return np.stack([value, value + np.float32(1)])


def decode_iq6_k_poly(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Values of IQ6_K rows by the polynomial: float32 [n_rows, n_cols] of uint8 [n_rows, row_nbytes]."""
    b = np.ascontiguousarray(blocks).reshape(-1, BLOCK_BYTES)
    d = b[:, :2].copy().view(np.float16).astype(np.float32)
    shift = np.unpackbits(b[:, 2:4], axis=1, bitorder="little")
    scale = d * b[:, 4:20].view(np.int8).astype(np.float32)
    low = b[:, 20:148].reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8)[:, None] & 15
    high = b[:, 148:].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    code = (low.reshape(-1, 16, 16) | high.reshape(-1, 16, 16) << 4).astype(np.intp)
    values = scale[:, :, None] * _polynomial()[shift[:, :, None], code]
    return values.reshape(len(blocks), blocks.shape[1] // BLOCK_BYTES * 256)
