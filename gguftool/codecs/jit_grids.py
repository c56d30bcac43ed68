"""Decoders of the grid types IQ1, IQ2 and IQ3 in numba, one group of codebook weights at a time.

native/decode_grids.c tells the layouts. Products are float32, in the format's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguftool.codecs import grids
from gguftool.codecs.jit_bits import HALF, Kernel, f16_to_float, inline, kernel, load_f16, nibble

N = 256
QUARTER = np.float32(0.25)
EIGHTH = np.float32(0.125)

# float32 [rows, weights] of the codebooks.
IQ2_XXS = np.array(grids.rows("iq2_xxs"), np.float32)
IQ2_XS = np.array(grids.rows("iq2_xs"), np.float32)
IQ2_S = np.array(grids.rows("iq2_s"), np.float32)
IQ3_XXS = np.array(grids.rows("iq3_xxs"), np.float32)
IQ3_S = np.array(grids.rows("iq3_s"), np.float32)
IQ1_S = np.array(grids.rows("iq1_s"), np.float32)


@inline
def load_u16(row: Any, at: int) -> Any:
    """Two bytes, the lower one first, as an int64."""
    return np.int64(row[at]) | (np.int64(row[at + 1]) << 8)


@inline
def load_u32(row: Any, at: int) -> Any:
    """Four bytes, the lowest first, as an int64."""
    return load_u16(row, at) | (load_u16(row, at + 2) << 16)


@inline
def even_signs(seven: int) -> Any:
    """Eight sign bits of seven: the eighth makes the number of ones even."""
    odd = seven ^ (seven >> 4)
    odd ^= odd >> 2
    odd ^= odd >> 1
    return seven | ((odd & 1) << 7)


@inline
def _signed(y: Any, at: int, scale: np.float32, levels: Any, signs: int) -> None:
    """A row of a codebook times a scale, negated where a bit of ``signs`` is set."""
    for j in range(levels.size):
        x = scale * levels[j]
        y[at + j] = -x if (signs >> j) & 1 else x


@inline
def _half_step(d: np.float32, code: int, part: np.float32) -> Any:
    return d * (HALF + np.float32(code)) * part


@kernel
def decode_iq2_xxs(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 66 * b
        d = load_f16(row, at)
        for k in range(32):
            q = at + 2 + 8 * (k // 4)
            word = load_u32(row, q + 4)
            signs = even_signs((word >> (7 * (k % 4))) & 127)
            _signed(y, N * b + 8 * k, _half_step(d, word >> 28, QUARTER), IQ2_XXS[row[q + k % 4]], signs)


@kernel
def decode_iq2_xs(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 74 * b
        d = load_f16(row, at)
        for k in range(32):
            q = load_u16(row, at + 2 + 2 * k)
            scale = _half_step(d, nibble(row, at + 66, k // 2), QUARTER)
            _signed(y, N * b + 8 * k, scale, IQ2_XS[q & 511], even_signs(q >> 9))


@kernel
def decode_iq2_s(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 82 * b
        d = load_f16(row, at)
        for k in range(32):
            index = np.int64(row[at + 2 + k]) | (((np.int64(row[at + 66 + k // 4]) >> (2 * (k % 4))) & 3) << 8)
            scale = _half_step(d, nibble(row, at + 74, k // 2), QUARTER)
            _signed(y, N * b + 8 * k, scale, IQ2_S[index], np.int64(row[at + 34 + k]))


@kernel
def decode_iq3_xxs(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 98 * b
        d = load_f16(row, at)
        for g in range(64):
            word = load_u32(row, at + 66 + 4 * (g // 8))
            signs = even_signs((word >> (7 * (g // 2 % 4))) & 127) >> (4 * (g % 2))
            _signed(y, N * b + 4 * g, _half_step(d, word >> 28, HALF), IQ3_XXS[row[at + 2 + g]], signs)


@kernel
def decode_iq3_s(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 110 * b
        d = load_f16(row, at)
        for g in range(64):
            index = np.int64(row[at + 2 + g]) | (((np.int64(row[at + 66 + g // 8]) >> (g % 8)) & 1) << 8)
            scale = d * np.float32(1 + 2 * nibble(row, at + 106, g // 8))
            _signed(y, N * b + 4 * g, scale, IQ3_S[index], nibble(row, at + 74, g))


@inline
def _shifted(y: Any, at: int, scale: np.float32, levels: Any, minus: int) -> None:
    """A row of -1, 0 and 1, each with an eighth added, or taken off if ``minus``, times a scale."""
    shift = -EIGHTH if minus else EIGHTH
    for j in range(levels.size):
        y[at + j] = scale * (levels[j] + shift)


@kernel
def decode_iq1_s(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 50 * b
        d = load_f16(row, at)
        for k in range(32):
            high = load_u16(row, at + 34 + 2 * (k // 4))
            index = np.int64(row[at + 2 + k]) | (((high >> (3 * (k % 4))) & 7) << 8)
            scale = d * np.float32(2 * ((high >> 12) & 7) + 1)
            _shifted(y, N * b + 8 * k, scale, IQ1_S[index], high >> 15)


@kernel
def decode_iq1_m(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 56 * b
        bits = 0
        for t in range(4):
            bits |= (load_u16(row, at + 48 + 2 * t) >> 12) << (4 * t)
        d = f16_to_float(bits)
        for k in range(32):
            high = nibble(row, at + 32, k)
            index = np.int64(row[at + k]) | ((high & 7) << 8)
            code = (load_u16(row, at + 48 + 2 * (k // 8)) >> (3 * (k // 2 % 4))) & 7
            _shifted(y, N * b + 8 * k, d * np.float32(2 * code + 1), IQ1_S[index], high >> 3)


DECODERS: dict[str, Kernel] = {
    "iq2_xxs": decode_iq2_xxs,
    "iq2_xs": decode_iq2_xs,
    "iq2_s": decode_iq2_s,
    "iq3_xxs": decode_iq3_xxs,
    "iq3_s": decode_iq3_s,
    "iq1_s": decode_iq1_s,
    "iq1_m": decode_iq1_m,
}
