"""Decoders of the trellis types of ik_llama.cpp and of Q6_0, Q8_KV, IQ1_BN and IQ2_BN in numba.

native/decode_kt.c and native/ik_plain.c tell the layouts. Products are float32, in the format's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguftool.codecs.jit_bits import Kernel, bits, inline, kernel, load_f16
from gguftool.codecs.jit_grids import load_u16, load_u32
from gguftool.codecs.jit_ik import VALUES_4, load_f32

MULTIPLIER = np.int64(0xCBAC1FED)
FIRST = 4096
SCALES = np.array(VALUES_4, np.float32)


@inline
def step(x: int) -> Any:
    """The generator's next state."""
    return (x * MULTIPLIER) & 0xFFFFFFFF


@inline
def weight(x: int) -> Any:
    """What a state stands for, -126 .. 126."""
    return (x & 63) + ((x >> 8) & 63) + ((x >> 16) & 63) + ((x >> 24) & 63) - 126


@inline
def _put(y: Any, at: int, n: int, index: int, scale: np.float32) -> None:
    x = index + FIRST
    for j in range(n):
        x = step(x)
        y[at + j] = scale * np.float32(weight(x))


@kernel
def decode_iq2_kt(row: Any, y: Any) -> None:
    d = load_f32(row, 0)
    for g in range(y.size // 8):
        at, b = 4 + 68 * (g // 32), g % 32 // 4
        scale = d * SCALES[bits(row, at + b % 4, 4 * (b // 4), 15)]
        _put(y, 8 * g, 8, load_u16(row, at + 4 + 2 * (g % 32)), scale)


@kernel
def decode_iq3_kt(row: Any, y: Any) -> None:
    d = load_f32(row, 0)
    for g in range(y.size // 8):
        at, b = 4 + 100 * (g // 32), g % 32 // 4
        scale = d * np.float32(bits(row, at + b % 4, 4 * (b // 4), 15))
        x = load_u16(row, at + 4 + 2 * (g % 32)) + FIRST
        for j in range(8):
            x = step(x)
            v = scale * np.float32(abs(weight(x)))
            y[8 * g + j] = -v if bits(row, at + 68 + 8 * (g % 4) + j, b, 1) else v


@kernel
def decode_iq4_kt(row: Any, y: Any) -> None:
    d = load_f32(row, 0)
    for g in range(y.size // 4):
        at, k = 4 + 128 * (g // 64), g % 64
        head = load_u32(row, at + 4 * (k // 8))
        index = np.int64(row[at + 32 + k]) | (bits(row, at + 96 + k % 32, 4 * (k // 32), 15) << 8)
        index |= (((head >> (8 + 3 * (k % 8))) & 7) << 12) | ((head & 1) << 15)
        _put(y, 4 * g, 4, index, d * np.float32(((head >> 1) & 127) - 64))


@kernel
def decode_iq1_kt(row: Any, y: Any) -> None:
    d = load_f32(row, 0)
    for g in range(y.size // 8):
        at, k = 4 + 56 * (g // 32), g % 32
        head = np.int64(row[at + k // 4])
        index = np.int64(row[at + 8 + k]) | (bits(row, at + 40 + k % 16, 4 * (k // 16), 15) << 8)
        index |= ((head >> (4 + k % 4)) & 1) << 12
        _put(y, 8 * g, 8, index, d * SCALES[head & 15])


@kernel
def decode_q6_0(row: Any, y: Any) -> None:
    for b in range(y.size // 32):
        at = 26 * b
        d = load_f16(row, at)
        for j in range(16):
            high = bits(row, at + 2 + j % 8, 4 * (j // 8), 15)
            y[32 * b + j] = np.float32((bits(row, at + 10 + j, 0, 15) | ((high & 3) << 4)) - 32) * d
            y[32 * b + 16 + j] = np.float32((bits(row, at + 10 + j, 4, 15) | ((high >> 2) << 4)) - 32) * d


@kernel
def decode_q8_kv(row: Any, y: Any) -> None:
    d = load_f32(row, 0)
    for i in range(y.size):
        y[i] = np.float32(np.int8(row[8 + i])) * d


@kernel
def decode_iq2_bn(row: Any, y: Any) -> None:
    d = load_f32(row, 0)
    for i in range(y.size):
        q = bits(row, 4 + 16 * (i // 64) + i % 16, 2 * (i % 64 // 16), 3)
        y[i] = np.float32(q - 1) * d


@inline
def _trit(byte: int, k: int) -> Any:
    """Trit k of a byte that is five of them as a fraction of 256."""
    return (((byte * 3 ** (4 - k)) & 255) * 3) >> 8


@kernel
def decode_iq1_bn(row: Any, y: Any) -> None:
    d = load_f16(row, 0)
    for i in range(y.size):
        at, t, j = 2 + 13 * (i // 64), i % 64 // 16, i % 16
        byte, k = (at + 12, t) if j == 15 else (at + 3 * t + j // 5, j % 5)
        y[i] = np.float32(_trit(np.int64(row[byte]), k) - 1) * d


DECODERS: dict[str, Kernel] = {
    "iq1_bn": decode_iq1_bn,
    "iq1_kt": decode_iq1_kt,
    "iq2_bn": decode_iq2_bn,
    "iq2_kt": decode_iq2_kt,
    "iq3_kt": decode_iq3_kt,
    "iq4_kt": decode_iq4_kt,
    "q6_0": decode_q6_0,
    "q8_KV": decode_q8_kv,
}
