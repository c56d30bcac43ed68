"""TQ1_0, TQ2_0, Q1_0 and Q2_0 in numba: decoders. native/ternary.c and native/lowbit.c tell the layouts."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguftool.codecs.jit_bits import Kernel, inline, kernel, load_f16


@inline
def _trits(row: Any, at: int, n_bytes: int, digits: int, d: Any, y: Any) -> None:
    """``digits`` trits of each byte; the elements of one byte are ``n_bytes`` apart."""
    for k in range(n_bytes):
        b = np.int64(row[at + k])
        for n in range(digits):
            b *= 3
            y[n * n_bytes + k] = np.float32((b >> 8) - 1) * d
            b &= 255


@kernel
def decode_tq1_0(row: Any, y: Any) -> None:
    for b in range(y.size // 256):
        at = 54 * b
        d = load_f16(row, at + 52)
        block = y[256 * b : 256 * b + 256]
        _trits(row, at, 32, 5, d, block)
        _trits(row, at + 32, 16, 5, d, block[160:])
        _trits(row, at + 48, 4, 4, d, block[240:])


@kernel
def decode_tq2_0(row: Any, y: Any) -> None:
    for b in range(y.size // 256):
        at = 66 * b
        d = load_f16(row, at + 64)
        for i in range(256):
            q = (np.int64(row[at + 32 * (i // 128) + i % 32]) >> (2 * (i % 128 // 32))) & 3
            y[256 * b + i] = np.float32(q - 1) * d


@kernel
def decode_q1_0(row: Any, y: Any) -> None:
    for b in range(y.size // 128):
        d = load_f16(row, 18 * b)
        for i in range(128):
            bit = (np.int64(row[18 * b + 2 + i // 8]) >> (i % 8)) & 1
            y[128 * b + i] = d if bit else -d


@kernel
def decode_q2_0(row: Any, y: Any) -> None:
    for b in range(y.size // 64):
        d = load_f16(row, 18 * b)
        for i in range(64):
            q = (np.int64(row[18 * b + 2 + i // 4]) >> (2 * (i % 4))) & 3
            y[64 * b + i] = np.float32(q - 1) * d


DECODERS: dict[str, Kernel] = {
    "tq1_0": decode_tq1_0,
    "tq2_0": decode_tq2_0,
    "q1_0": decode_q1_0,
    "q2_0": decode_q2_0,
}
