"""What the numba searches of IQ4_NL and IQ4_XS share: native/iq4_search.h for one block at a time.

``side`` is 0 for the codebook and 1 for its mirror image, which is what a negative scale makes of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguftool.codecs.jit_bits import ZERO, inline
from gguftool.codecs.jit_symmetric_search import (
    FAR,
    GT_MSE,
    GT_REF,
    LEAST_SCALE,
    MAGIC,
    ONE,
    TINY_WEIGHT,
    energy_of,
    inverse_of,
    power_of_two_of,
)

BLOCK = 32
BETTER = np.float32(1 + 2.0**-20)
OUTLIER = np.float32(6)
ELEVENTH = np.float32(1) / np.float32(11)
FARTHEST_CELL = np.float32(165)

VALUES = np.array((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.float32)
THRESHOLDS = (VALUES[1:] + VALUES[:-1]) / np.float32(2)

#: The codebook and its mirror image, ascending.
BOOKS = np.stack((VALUES, -VALUES[::-1]))


def _cells() -> Any:
    """The low and the high entry of each cell of width 11, at the lowest five bits of its number; by side."""
    cells = np.empty((2, 2, 32), np.float32)
    for side, book in enumerate(BOOKS):
        middles = (book[1:] + book[:-1]) / 2
        for k in range(-16, 16):
            cells[side, 0, k & 31] = book[np.searchsorted(middles, 11 * k - 5.51)]
            cells[side, 1, k & 31] = book[np.searchsorted(middles, 11 * k + 5.51)]
    return cells


CELLS = _cells()


# ---- one block at one scale ----


@inline
def _entry_of(t: Any, side: int) -> Any:
    """The entry nearest to t, of two as near the upper."""
    near = min(max(t, -FARTHEST_CELL), FARTHEST_CELL) * ELEVENTH
    cell = np.int64((near + MAGIC) - MAGIC) & 31
    low, high = CELLS[side, 0, cell], CELLS[side, 1, cell]
    return high if t + t >= low + high else low


@inline
def moments_of(x: Any, w: Any, inverse: Any, side: int) -> Any:
    """sum w x l and sum w l^2: the least-squares scale is their ratio."""
    xl, ll = ZERO, ZERO
    for i in range(BLOCK):
        entry = _entry_of(x[i] * inverse, side)
        xl += (w[i] * x[i]) * entry
        ll += (w[i] * entry) * entry
    return xl, ll


@inline
def error_of(x: Any, w: Any, s: Any, side: int) -> Any:
    """sum w (x - s l)^2."""
    inverse, e = ONE / s, ZERO
    for i in range(BLOCK):
        t = x[i] * inverse
        rest = t - _entry_of(t, side)
        e += w[i] * (rest * rest)
    return e * (s * s)


@inline
def search_gains(x: Any, w: Any, v: Any, plan: Any, best: Any, found: Any, rows: Any) -> Any:
    """The refitted scale around v that lowers the error most, either sign, and by how much.

    ``rows`` [2 sides, n, 2] gets the moments, unless it is empty.
    """
    for k in range(plan.n):
        inverse = ONE / (v * (plan.start + np.float32(k) * plan.step))
        for side in range(2):
            xl, ll = moments_of(x, w, inverse, side)
            fit = xl / ll
            gain = fit * xl
            if gain > best * BETTER:
                best, found = gain, -fit if side else fit
            if rows.size:
                rows[side, k, 0], rows[side, k, 1] = xl, ll
    return best, found


@inline
def largest_of(x: Any) -> Any:
    largest = ZERO
    for v in x:
        largest = max(largest, abs(v))
    return largest


@inline
def natural_scale(x: Any, w: Any) -> Any:
    """The scale that puts the largest element that matters at the end of the codebook; of zeros, any."""
    total = ZERO
    for weight in w:
        total += weight
    reach = np.sqrt(energy_of(x, w) / total) * OUTLIER
    return max(min(largest_of(x), reach), LEAST_SCALE) * (ONE / np.float32(127))


@inline
def round_block(x: Any, s: Any, out: Any) -> None:
    """Codes of 32 elements at a given scale, as nibbles."""
    inverse = inverse_of(s)
    out[:] = 0
    for i in range(BLOCK):
        t, code = x[i] * inverse, 0
        for threshold in THRESHOLDS:
            code += t >= threshold
        out[i % 16] |= np.uint8(code << (4 * (i // 16)))


# ---- a tile: values scaled by a power of two, and their weights ----


@inline
def sum_of_eight(p: Any) -> Any:
    return ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]))


@inline
def _weigh_as_reference(x: Any, w: Any, weights: Any) -> None:
    """Importance times the root of 2 mean(x^2) + x^2; x^2 without one."""
    sums = np.zeros(8, np.float32)
    for i in range(x.size):
        sums[i // BLOCK] += x[i] * x[i]
    total = sums[0] if x.size == BLOCK else sum_of_eight(sums)
    twice_mean = total * (np.float32(2) / np.float32(x.size))
    for i in range(x.size):
        square = x[i] * x[i]
        weights[i] = max(w[i] * np.sqrt(twice_mean + square) if w.size else square, TINY_WEIGHT)


@inline
def fill_tile(x: Any, w: Any, objective: int, tile: Any, weights: Any) -> Any:
    """Fills tile and weights of a block or a super-block; the power of two that undoes the scaling."""
    power = power_of_two_of(min(largest_of(x), FAR))
    for i in range(x.size):
        tile[i] = min(max(x[i], -FAR), FAR) * (ONE / power)
        weights[i] = w[i] if w.size and objective != GT_MSE else ONE
    if objective == GT_REF:
        _weigh_as_reference(tile, w, weights)
    return power
