"""Decoders of the ik_llama.cpp types with scalar codebooks in numba, one sub-block at a time.

native/decode_ik.c tells the layouts. Products are float32, in the format's order: the row's or super-block's scale
times the integer one, and that times a value of the codebook.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguftool.codecs.jit_bits import Kernel, bits, float_of, inline, kernel, load_f16, nibble
from gguftool.codecs.jit_grids import load_u16, load_u32

N = 256


def _tables(base: tuple[int, ...], shift: int) -> Any:
    """float32 [2, values]: the codebook and the shifted one."""
    values = np.array(base, np.float32)
    return np.stack([values, values + np.float32(shift)])


VALUES_2 = (-31, -13, 1, 17)
VALUES_3 = (-63, -40, -23, -10, 1, 13, 28, 47)
VALUES_4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
VALUES_5 = (
    *(-126, -114, -103, -92, -83, -74, -65, -57, -50, -43, -36, -30, -24, -18, -12, -6),
    *(-1, 5, 11, 17, 23, 29, 36, 43, 51, 59, 68, 77, 87, 97, 109, 121),
)
VALUES_6 = (
    *(-127, -121, -115, -109, -104, -98, -93, -88, -84, -79, -74, -70, -66, -62, -58, -54),
    *(-51, -47, -44, -40, -37, -34, -31, -28, -25, -22, -19, -16, -13, -11, -8, -5),
    *(-2, 0, 3, 6, 9, 12, 14, 17, 20, 23, 27, 30, 33, 36, 40, 44),
    *(47, 51, 55, 59, 63, 68, 72, 77, 82, 87, 92, 98, 103, 109, 115, 121),
)
#: The pairs of iq2_kl, as indices into VALUES_3.
PAIRS = (
    *((0, 2), (0, 5), (1, 0), (1, 3), (1, 5), (1, 7), (2, 1), (2, 2), (2, 4), (2, 5), (2, 6), (3, 0), (3, 4), (3, 5)),
    *((3, 7), (4, 2), (4, 3), (4, 4), (4, 5), (4, 6), (5, 1), (5, 2), (5, 3), (5, 4), (5, 5), (6, 0), (6, 2), (6, 4)),
    *((6, 6), (6, 7), (7, 2), (7, 5)),
)

T2 = _tables(VALUES_2, 5)
T3 = _tables(VALUES_3, 4)
T4 = _tables(VALUES_4, 4)
T5 = _tables(VALUES_5, 2)
T6 = _tables(VALUES_6, 1)
TKL = T3[0][np.array(PAIRS)]


@inline
def load_f32(row: Any, at: int) -> Any:
    """The float32 at a byte offset."""
    return float_of(load_u32(row, at))


@inline
def _put(y: Any, i: int, scale: np.float32, table: Any, codes: Any) -> None:
    for j in range(codes.size):
        y[i + j] = scale * table[codes[j]]


# The codes of sub-block i of sixteen, from where the super-block's codes start.


@inline
def _codes_2(row: Any, at: int, i: int, codes: Any) -> None:
    for j in range(16):
        e = 16 * i + j
        codes[j] = bits(row, at + 32 * (e // 128) + e % 32, 2 * (e % 128 // 32), 3)


@inline
def _codes_3(row: Any, at: int, i: int, codes: Any) -> None:
    _codes_2(row, at, i, codes)
    for j in range(16):
        codes[j] |= bits(row, at + 64 + 16 * (i % 2) + j, i // 2, 1) << 2


@inline
def _codes_4(row: Any, at: int, i: int, codes: Any) -> None:
    for j in range(16):
        codes[j] = bits(row, at + 16 * (i // 2) + j, 4 * (i % 2), 15)


@inline
def _codes_low(row: Any, at: int, i: int, codes: Any) -> None:
    for j in range(16):
        codes[j] = bits(row, at + 32 * (i // 4) + 16 * (i % 2) + j, 4 * (i // 2 % 2), 15)


@inline
def _codes_5(row: Any, at: int, i: int, codes: Any) -> None:
    _codes_low(row, at, i, codes)
    for j in range(16):
        codes[j] |= bits(row, at + 128 + 16 * (i % 2) + j, i // 2, 1) << 4


@inline
def _codes_6(row: Any, at: int, i: int, codes: Any) -> None:
    _codes_low(row, at, i, codes)
    for j in range(16):
        codes[j] |= bits(row, at + 128 + 32 * (i // 8) + 16 * (i % 2) + j, 2 * (i // 2 % 4), 3) << 4


@inline
def _scale_k(row: Any, at: int, i: int) -> Any:
    """Scale i of iq4_k and iq5_k."""
    return (nibble(row, at + 8, i) | (bits(row, at + 4 + i // 4, 2 * (i % 4), 3) << 4)) - 32


@kernel
def decode_iq4_ks(row: Any, y: Any) -> None:
    d = load_f32(row, 0)
    codes = np.empty(16, np.int64)
    for i in range(y.size // 16):
        at = 4 + 136 * (i // 16)
        s = np.int64(row[at + i % 16 // 2])
        _codes_4(row, at + 8, i % 16, codes)
        _put(y, 16 * i, d * np.float32((s & 254) - 127), T4[s & 1], codes)


@kernel
def decode_iq4_kss(row: Any, y: Any) -> None:
    d = load_f32(row, 0)
    words = np.empty(8, np.int64)
    for b in range(y.size // 32):
        s = 0
        for k in range(8):
            word = load_u16(row, 4 + 16 * b + 2 * k)
            s |= (word & 1) << k
            word &= 0xFFFE
            words[k] = word ^ (word >> 1)
        scale = d * np.float32((s & 254) - 127)
        for k in range(16):
            y[32 * b + k] = scale * T4[s & 1, (words[k // 2] >> (8 * (k % 2))) & 15]
            y[32 * b + 16 + k] = scale * T4[s & 1, (words[k // 2] >> (8 * (k % 2) + 4)) & 15]


@kernel
def decode_iq5_ks(row: Any, y: Any) -> None:
    d = load_f32(row, 0)
    codes = np.empty(16, np.int64)
    for i in range(y.size // 16):
        at = 4 + 168 * (i // 16)
        s = np.int64(row[at + i % 16 // 2])
        _codes_5(row, at + 8, i % 16, codes)
        _put(y, 16 * i, d * np.float32((s & 254) - 127), T5[s & 1], codes)


@kernel
def decode_iq4_k(row: Any, y: Any) -> None:
    codes = np.empty(16, np.int64)
    for b in range(y.size // N):
        at = 144 * b
        d, shifts = load_f16(row, at), load_u16(row, at + 2)
        for i in range(16):
            _codes_4(row, at + 16, i, codes)
            _put(y, N * b + 16 * i, d * np.float32(_scale_k(row, at, i)), T4[(shifts >> i) & 1], codes)


@kernel
def decode_iq5_k(row: Any, y: Any) -> None:
    codes = np.empty(16, np.int64)
    for b in range(y.size // N):
        at = 176 * b
        d, shifts = load_f16(row, at), load_u16(row, at + 2)
        for i in range(16):
            _codes_5(row, at + 16, i, codes)
            _put(y, N * b + 16 * i, d * np.float32(_scale_k(row, at, i)), T5[(shifts >> i) & 1], codes)


@kernel
def decode_iq6_k(row: Any, y: Any) -> None:
    codes = np.empty(16, np.int64)
    for b in range(y.size // N):
        at = 212 * b
        d, shifts = load_f16(row, at), load_u16(row, at + 2)
        for i in range(16):
            _codes_6(row, at + 20, i, codes)
            _put(y, N * b + 16 * i, d * np.float32(np.int8(row[at + 4 + i])), T6[(shifts >> i) & 1], codes)


@kernel
def decode_iq3_k(row: Any, y: Any) -> None:
    codes = np.empty(16, np.int64)
    for b in range(y.size // N):
        at = 110 * b
        d, shifts, signs = load_f16(row, at), load_u16(row, at + 2), load_u16(row, at + 4)
        for i in range(16):
            s = 2 * nibble(row, at + 6, i) + 1
            if (signs >> i) & 1:
                s = -s
            _codes_3(row, at + 14, i, codes)
            _put(y, N * b + 16 * i, d * np.float32(s), T3[(shifts >> i) & 1], codes)


@kernel
def decode_iq3_ks(row: Any, y: Any) -> None:
    d = load_f16(row, 0)
    codes = np.empty(16, np.int64)
    for i in range(y.size // 16):
        at, k = 2 + 102 * (i // 16), i % 16 // 2
        extra = load_u16(row, at)
        s = (bits(row, at + 2 + k % 4, 4 * (k // 4), 15) | (((extra >> k) & 1) << 4)) - 16
        _codes_3(row, at + 6, i % 16, codes)
        _put(y, 16 * i, d * np.float32(s), T3[(extra >> (8 + k)) & 1], codes)


@kernel
def decode_iq2_k(row: Any, y: Any) -> None:
    codes = np.empty(16, np.int64)
    for b in range(y.size // N):
        at = 76 * b
        d, shifts = load_f16(row, at), load_u16(row, at + 2)
        for i in range(16):
            _codes_2(row, at + 12, i, codes)
            _put(y, N * b + 16 * i, d * np.float32(nibble(row, at + 4, i) - 8), T2[(shifts >> i) & 1], codes)


@kernel
def decode_iq2_ks(row: Any, y: Any) -> None:
    d = load_f16(row, 0)
    codes = np.empty(16, np.int64)
    for i in range(y.size // 16):
        at, k = 2 + 70 * (i // 16), i % 16 // 2
        extra = load_u16(row, at)
        s = (nibble(row, at + 2, k) | (((extra >> (8 + k)) & 1) << 4)) - 16
        _codes_2(row, at + 6, i % 16, codes)
        _put(y, 16 * i, d * np.float32(s), T2[(extra >> k) & 1], codes)


@kernel
def decode_iq2_kl(row: Any, y: Any) -> None:
    d = load_f16(row, 0)
    for i in range(y.size // 32):
        at, b = 2 + 86 * (i // 8), i % 8
        high = load_u16(row, at) >> (2 * b)
        scale = d * np.float32((bits(row, at + 2 + b % 4, 4 * (b // 4), 15) | ((high & 3) << 4)) - 32)
        for p in range(16):
            code = bits(row, at + 6 + 16 * (b // 2) + p, 4 * (b % 2), 15) | (bits(row, at + 70 + p, b, 1) << 4)
            y[32 * i + 2 * p] = scale * TKL[code, 0]
            y[32 * i + 2 * p + 1] = scale * TKL[code, 1]


DECODERS: dict[str, Kernel] = {
    "iq2_k": decode_iq2_k,
    "iq2_kl": decode_iq2_kl,
    "iq2_ks": decode_iq2_ks,
    "iq3_k": decode_iq3_k,
    "iq3_ks": decode_iq3_ks,
    "iq4_k": decode_iq4_k,
    "iq4_ks": decode_iq4_ks,
    "iq4_kss": decode_iq4_kss,
    "iq5_k": decode_iq5_k,
    "iq5_ks": decode_iq5_ks,
    "iq6_k": decode_iq6_k,
}
