"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 in numba: decoders, and the closed forms used without an importance.

native/legacy.c tells the layouts and the two cases that go beyond the reference. With an importance Q4_* and Q5_*
are searched for: see jit_affine and jit_symmetric.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguftool.codecs.jit_bits import (
    F16_MAX,
    HALF,
    HUGE,
    ZERO,
    Kernel,
    f16_from_scale,
    inline,
    kernel,
    load_f16,
    store_u16,
    too_large,
)

N = 32
MAX_Q8 = np.float32(127)


@inline
def _inverse(d: Any) -> Any:
    """1/d, and 0 for 0."""
    if d == ZERO:
        return ZERO
    return np.float32(1) / d


@inline
def _infinite(x: Any) -> Any:
    return x > HUGE or x < -HUGE


@inline
def _cut(x: Any, lo: Any, hi: Any) -> Any:
    """A copy of the block cut to [lo, hi]."""
    out = np.empty(N, np.float32)
    for i in range(N):
        out[i] = min(max(x[i], lo), hi)
    return out


@inline
def _signed_max(x: Any) -> Any:
    """The value of the largest magnitude, the first of several."""
    best = ZERO
    for i in range(N):
        if abs(x[i]) > abs(best):
            best = x[i]
    return best


@kernel
def encode_q8_0(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    for b in range(x.size // N):
        block = x[N * b : N * b + N]
        row = out[34 * b : 34 * b + 34]
        d = abs(_signed_max(block)) / MAX_Q8
        if too_large(d):
            block = _cut(block, -MAX_Q8 * F16_MAX, MAX_Q8 * F16_MAX)
            d = F16_MAX
        inverse = _inverse(d)
        store_u16(row, 0, f16_from_scale(d))
        for i in range(N):
            if _infinite(inverse):
                row[2 + i] = 0
                continue
            v = block[i] * inverse
            q = np.int64(v)
            rest = v - np.float32(q)  # exact; halves go away from zero
            if rest >= HALF:
                q += 1
            if rest <= -HALF:
                q -= 1
            row[2 + i] = np.uint8(q & 255)


@inline
def _put_codes(x: Any, origin: Any, inverse: Any, half: Any, levels: int, row: Any, at: int) -> None:
    """Codes of (x - origin) * inverse + half behind the scales: fifth bits if there are 32 levels, then nibbles."""
    code = np.zeros(N, np.int64)
    if not _infinite(inverse):
        for i in range(N):
            q = np.int64((x[i] - origin) * inverse + half)
            code[i] = q if q < levels else levels - 1
    if levels == 32:
        for k in range(4):
            bits = 0
            for i in range(8):
                bits |= (code[8 * k + i] >> 4) << i
            row[at + k] = bits
        at += 4
    for i in range(16):
        row[at + i] = np.uint8((code[i] & 15) | ((code[i + 16] & 15) << 4))


@inline
def _symmetric(x: Any, levels: int, row: Any) -> None:
    low = np.float32(levels // 2)
    d = _signed_max(x) / -low
    if too_large(d):
        x = _cut(x, -low * F16_MAX, low * F16_MAX)
        d = _signed_max(x) / -low
    store_u16(row, 0, f16_from_scale(d))
    _put_codes(x, ZERO, _inverse(d), low + HALF, levels, row, 2)


@inline
def _affine(x: Any, levels: int, row: Any) -> None:
    low = x[0]
    high = x[0]
    for i in range(1, N):
        low = x[i] if x[i] < low else low
        high = x[i] if x[i] > high else high
    top = np.float32(levels - 1)
    d = (high - low) / top
    if too_large(d) or too_large(low):
        low = min(max(low, -F16_MAX), F16_MAX)
        x = _cut(x, low, low + top * F16_MAX)
        high = low
        for i in range(N):
            high = max(high, x[i])
        d = (high - low) / top
    store_u16(row, 0, f16_from_scale(d))
    store_u16(row, 2, f16_from_scale(low))
    _put_codes(x, low, _inverse(d), HALF, levels, row, 4)


@kernel
def encode_q4_0(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    for b in range(x.size // N):
        _symmetric(x[N * b : N * b + N], 16, out[18 * b : 18 * b + 18])


@kernel
def encode_q5_0(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    for b in range(x.size // N):
        _symmetric(x[N * b : N * b + N], 32, out[22 * b : 22 * b + 22])


@kernel
def encode_q4_1(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    for b in range(x.size // N):
        _affine(x[N * b : N * b + N], 16, out[20 * b : 20 * b + 20])


@kernel
def encode_q5_1(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    for b in range(x.size // N):
        _affine(x[N * b : N * b + N], 32, out[24 * b : 24 * b + 24])


@kernel
def decode_q8_0(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        d = load_f16(row, 34 * b)
        for i in range(N):
            y[N * b + i] = np.float32(np.int8(row[34 * b + 2 + i])) * d


@inline
def _code(row: Any, at: int, i: int) -> Any:
    """Nibble i of a block of 32."""
    return (np.int64(row[at + i % 16]) >> (4 * (i // 16))) & 15


@kernel
def decode_q4_0(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        d = load_f16(row, 18 * b)
        for i in range(N):
            y[N * b + i] = np.float32(_code(row, 18 * b + 2, i) - 8) * d


@kernel
def decode_q4_1(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        d = load_f16(row, 20 * b)
        m = load_f16(row, 20 * b + 2)
        for i in range(N):
            y[N * b + i] = np.float32(_code(row, 20 * b + 4, i)) * d + m


@kernel
def decode_q5_0(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 22 * b
        d = load_f16(row, at)
        for i in range(N):
            fifth = (np.int64(row[at + 2 + i // 8]) >> (i % 8)) & 1
            y[N * b + i] = np.float32((_code(row, at + 6, i) | (fifth << 4)) - 16) * d


@kernel
def decode_q5_1(row: Any, y: Any) -> None:
    for b in range(y.size // N):
        at = 24 * b
        d = load_f16(row, at)
        m = load_f16(row, at + 2)
        for i in range(N):
            fifth = (np.int64(row[at + 4 + i // 8]) >> (i % 8)) & 1
            y[N * b + i] = np.float32(_code(row, at + 8, i) | (fifth << 4)) * d + m


DECODERS: dict[str, Kernel] = {
    "q4_0": decode_q4_0,
    "q4_1": decode_q4_1,
    "q5_0": decode_q5_0,
    "q5_1": decode_q5_1,
    "q8_0": decode_q8_0,
}
ENCODERS: dict[str, Kernel] = {
    "q4_0": encode_q4_0,
    "q4_1": encode_q4_1,
    "q5_0": encode_q5_0,
    "q5_1": encode_q5_1,
    "q8_0": encode_q8_0,
}
