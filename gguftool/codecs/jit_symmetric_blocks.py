"""Encoders in numba of Q4_0 and Q5_0 with an importance; native/legacy_symmetric.c tells method and figures."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguftool.codecs.jit_bits import ZERO, Kernel, f16_from_scale, inline, kernel, store_u16
from gguftool.codecs.jit_symmetric_search import (
    FAR,
    GT_MSE,
    GT_REF,
    HOPELESS,
    LANES,
    LEAST_SCALE,
    NO_SPREAD,
    ONE,
    TINY_WEIGHT,
    Spread,
    energy_of,
    error_of,
    largest_of,
    own_scale,
    power_of_two_of,
    round_codes,
    round_to_f16,
    search_spread,
    spread,
    sum16,
)

BLOCK = 32

FARTHEST = np.float32(2.0**126)


class BlockPlan(NamedTuple):
    """How far the search of a block of 32 goes; the fields are those of plan in native/legacy_symmetric.c."""

    first: Spread
    second: Spread
    refits: int


# By effort (fast, default, best), as in the C file.
Q4_0 = (
    BlockPlan(spread(0.65, 1.27, 12, False), NO_SPREAD, 2),
    BlockPlan(spread(0.6, 1.37, 20, True), spread(0.95, 1.05, 8, False), 3),
    BlockPlan(spread(0.4, 1.8, 256, True), spread(0.98, 1.02, 16, True), 8),
)
Q5_0 = (
    BlockPlan(spread(0.9, 1.23, 12, False), NO_SPREAD, 0),
    BlockPlan(spread(0.7, 1.46, 36, False), spread(0.93, 1.07, 8, True), 3),
    BlockPlan(spread(0.4, 2.0, 512, True), spread(0.98, 1.02, 32, True), 8),
)


@inline
def _row_mean(x: Any, inverse: Any) -> Any:
    """Mean of x^2 over the row, in units of the row."""
    sums = np.zeros(LANES, np.float32)
    for i in range(x.size):
        v = x[i] * inverse
        sums[i % LANES] += v * v
    return sum16(sums) / np.float32(x.size)


@inline
def _choose_block_scale(x: Any, w: Any, levels: Any, plan: Any) -> Any:
    """The storable scale of least error; 0 if zeros are as good."""
    largest = largest_of(x)
    power = power_of_two_of(abs(largest))
    inverse = ONE / power
    tile = np.empty(BLOCK, np.float32)
    for i in range(BLOCK):
        tile[i] = x[i] * inverse
    v = max(abs(largest) * inverse, LEAST_SCALE) * (-ONE if largest < ZERO else ONE) * (ONE / levels)
    s, error = search_spread(tile, w, v, levels, plan.first, HOPELESS)
    s, error = search_spread(tile, w, s, levels, plan.second, error)
    fit = own_scale(tile, w, ONE / s, levels)
    best, found = energy_of(tile, w), ZERO
    for r in range(plan.refits + 1):
        s = round_to_f16(abs(fit) * power) * (-ONE if fit < ZERO else ONE) * (ONE / power)
        e = error_of(tile, w, s, -levels, levels - ONE)
        if e < best:
            best, found = e, s
        if r < plan.refits:
            fit = own_scale(tile, w, ONE / s, levels)
    return found * power


@inline
def _encode_blocks(x: Any, w: Any, out: Any, objective: int, levels: Any, plan: Any) -> None:
    five = levels == np.float32(16)
    size = out.size // (x.size // BLOCK)
    row_largest = ZERO
    for v in x:
        row_largest = max(row_largest, abs(v))
    inverse = ONE / power_of_two_of(min(row_largest, FARTHEST))
    mean = _row_mean(x, inverse) if objective == GT_REF else ZERO
    cut, weights, codes = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.uint8)
    for b in range(x.size // BLOCK):
        at = slice(b * BLOCK, b * BLOCK + BLOCK)
        block, wb, row = x[at], w[at], out[b * size : b * size + size]
        for i in range(BLOCK):
            cut[i] = min(max(block[i], -FAR), FAR)
            weights[i] = ONE if objective == GT_MSE else wb[i]
            if objective == GT_REF:
                v = cut[i] * inverse
                weights[i] = max(wb[i] * np.sqrt(mean + v * v), TINY_WEIGHT)
        d = _choose_block_scale(cut, weights, levels, plan)
        round_codes(block, d, levels, codes)
        store_u16(row, 0, f16_from_scale(d))
        row[2:] = 0
        for i in range(BLOCK):
            row[size - 16 + i % 16] |= np.uint8((codes[i] & 15) << (4 * (i // 16)))
            if five:
                row[2 + i // 8] |= np.uint8((codes[i] >> 4) << (i % 8))


@kernel
def encode_q4_0(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    _encode_blocks(x, w, out, objective, np.float32(8), Q4_0[effort])


@kernel
def encode_q5_0(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    _encode_blocks(x, w, out, objective, np.float32(16), Q5_0[effort])


ENCODERS: dict[str, Kernel] = {"q4_0": encode_q4_0, "q5_0": encode_q5_0}
