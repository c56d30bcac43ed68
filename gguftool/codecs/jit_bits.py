"""Bits and bytes for numba: float32 arithmetic only, so that the bytes are those of the C kernels.

In numba an int times a float32 is a float64, and so is every Python literal: constants here are float32 and integers
are converted before they meet a float.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
import numpy as np

Kernel = Callable[..., Any]

F16_MAX = np.float32(65504)
HUGE = np.float32(3.4028234663852886e38)
ZERO = np.float32(0)
HALF = np.float32(0.5)

#: 2^(e - 25) for the exponent field e of a binary16 number, 2^-24 for subnormals.
_F16_STEP = np.array([2.0 ** (max(e, 1) - 25) for e in range(31)], np.float32)


def kernel(function: Kernel) -> Kernel:
    """The function compiled at its first call, its code cached, the GIL released in it."""
    compiled: Kernel = nb.njit(nogil=True, cache=True)(function)
    return compiled


def inline(function: Kernel) -> Kernel:
    """A helper that only kernels call."""
    compiled: Kernel = nb.njit(cache=True)(function)
    return compiled


@inline
def bits_of(x: np.float32) -> Any:
    """The 32 bits of a float32, as an int64."""
    return np.int64(np.float32(x).view(np.uint32))


@inline
def float_of(bits: int) -> Any:
    """The float32 of 32 bits."""
    return np.uint32(bits).view(np.float32)


@inline
def f16_to_float(h: int) -> Any:
    """The float32 value of binary16 bits; infinity and NaN too."""
    e = (h >> 10) & 31
    m = h & 0x3FF
    if e == 31:
        return float_of(((h & 0x8000) << 16) | 0x7F800000 | (m << 13))
    if e > 0:
        m += 1024
    x = np.float32(m) * _F16_STEP[e]
    return -x if h & 0x8000 else x


@inline
def f16_bits(x: np.float32) -> Any:
    """Binary16 bits of a finite float32 below 65520, to nearest even, subnormals kept."""
    u = bits_of(x)
    a = u & 0x7FFFFFFF
    h = (a - 0x38000000 + 0xFFF + ((a >> 13) & 1)) >> 13
    if a < 0x38800000:
        h = bits_of(float_of(a) + HALF) - 0x3F000000
    return ((u >> 16) & 0x8000) | h


@inline
def too_large(x: np.float32) -> Any:
    """Whether x would be infinite as binary16."""
    return (bits_of(x) & 0x7FFFFFFF) >= 0x477FF000


@inline
def f16_from_scale(x: np.float32) -> Any:
    """As f16_bits, but what would be infinite becomes the largest finite value: a scale is never infinite."""
    if too_large(x):
        return 0x7BFF | ((bits_of(x) >> 16) & 0x8000)
    return f16_bits(x)


@inline
def load_f16(row: Any, at: int) -> Any:
    """The binary16 value at a byte offset, as float32."""
    return f16_to_float(np.int64(row[at]) | (np.int64(row[at + 1]) << 8))


@inline
def store_u16(row: Any, at: int, value: int) -> None:
    """Writes two bytes, the lower one first."""
    row[at] = np.uint8(value & 0xFF)
    row[at + 1] = np.uint8((value >> 8) & 0xFF)


@inline
def bits(row: Any, at: int, shift: int, mask: int) -> Any:
    """A field of a byte, as an int64."""
    return (np.int64(row[at]) >> shift) & mask


@inline
def nibble(row: Any, at: int, k: int) -> Any:
    """Nibble k of the bytes from ``at`` on, the low one of a byte first."""
    return (np.int64(row[at + k // 2]) >> (4 * (k % 2))) & 15
