"""Decoders of Q2_K, Q3_K, Q4_K, Q5_K and Q6_K in numba, one element at a time as the format defines them.

native/decode_kquants.c tells the layouts. Products are float32, in the format's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguftool.codecs.jit_bits import Kernel, bits, inline, kernel, load_f16

N = 256


@kernel
def decode_q2_K(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 84 * b
        d = load_f16(row, at + 80)
        dmin = load_f16(row, at + 82)
        for i in range(N):
            q = bits(row, at + 16 + 32 * (i // 128) + i % 32, 2 * (i % 128 // 32), 3)
            scale = d * np.float32(bits(row, at + i // 16, 0, 15))
            minimum = dmin * np.float32(bits(row, at + i // 16, 4, 15))
            y[N * b + i] = scale * np.float32(q) - minimum


@kernel
def decode_q3_K(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 110 * b
        d = load_f16(row, at + 108)
        for i in range(N):
            low = bits(row, at + 32 + 32 * (i // 128) + i % 32, 2 * (i % 128 // 32), 3)
            high = bits(row, at + i % 32, i // 32, 1)
            j = i // 16
            s = bits(row, at + 96 + j % 8, 4 * (j // 8), 15) | (bits(row, at + 104 + j % 4, 2 * (j // 4), 3) << 4)
            y[N * b + i] = d * np.float32(s - 32) * np.float32(low + 4 * high - 4)


@inline
def _affine_scale(row: Any, at: int, j: int, minimum: int) -> Any:
    """Scale (or minimum) j of the twelve bytes that q4_K and q5_K share."""
    if j < 4:
        return bits(row, at + j + 4 * minimum, 0, 63)
    return bits(row, at + j + 4, 4 * minimum, 15) | (bits(row, at + j - 4 + 4 * minimum, 6, 3) << 4)


@kernel
def decode_q4_K(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 144 * b
        d = load_f16(row, at)
        dmin = load_f16(row, at + 2)
        for j in range(8):
            scale = d * np.float32(_affine_scale(row, at + 4, j, 0))
            minimum = dmin * np.float32(_affine_scale(row, at + 4, j, 1))
            for k in range(32):
                q = bits(row, at + 16 + 32 * (j // 2) + k, 4 * (j % 2), 15)
                y[N * b + 32 * j + k] = scale * np.float32(q) - minimum


@kernel
def decode_q5_K(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 176 * b
        d = load_f16(row, at)
        dmin = load_f16(row, at + 2)
        for j in range(8):
            scale = d * np.float32(_affine_scale(row, at + 4, j, 0))
            minimum = dmin * np.float32(_affine_scale(row, at + 4, j, 1))
            for k in range(32):
                q = bits(row, at + 48 + 32 * (j // 2) + k, 4 * (j % 2), 15) | (bits(row, at + 16 + k, j, 1) << 4)
                y[N * b + 32 * j + k] = scale * np.float32(q) - minimum


@kernel
def decode_q6_K(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 210 * b
        d = load_f16(row, at + 208)
        for i in range(N):
            half = i // 128
            g = i % 128 // 32
            k = i % 32
            low = bits(row, at + 64 * half + 32 * (g % 2) + k, 4 * (g // 2), 15)
            q = low | (bits(row, at + 128 + 32 * half + k, 2 * g, 3) << 4)
            scale = d * np.float32(np.int8(row[at + 192 + i // 16]))
            y[N * b + i] = scale * np.float32(q - 32)


DECODERS: dict[str, Kernel] = {
    "q2_K": decode_q2_K,
    "q3_K": decode_q3_K,
    "q4_K": decode_q4_K,
    "q5_K": decode_q5_K,
    "q6_K": decode_q6_K,
}
