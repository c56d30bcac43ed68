"""IQ4_NL and IQ4_XS in numba; native/iq4.c and iq4_xs.h tell layouts, method and figures.

There sixteen blocks are searched side by side; here one after the other, in the same order of operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguftool.codecs.jit_bits import ZERO, Kernel, f16_from_scale, inline, kernel, load_f16, store_u16
from gguftool.codecs.jit_iq4_search import (
    BLOCK,
    VALUES,
    error_of,
    fill_tile,
    largest_of,
    moments_of,
    natural_scale,
    round_block,
    search_gains,
    sum_of_eight,
)
from gguftool.codecs.jit_symmetric_search import (
    HOPELESS,
    LANES,
    LEAST_SCALE,
    MAGIC,
    NO_SPREAD,
    ONE,
    Spread,
    energy_of,
    inverse_of,
    spread,
    storable,
)

SUPER = 256
SUBS = 8
MOST = np.float32(31)
COARSE = np.float32(64 * 2.0**-24)
STEPS = 2


class NlPlan(NamedTuple):
    """How far the search of a block goes; the fields are those of nl_plan in native/iq4.c."""

    first: Spread
    second: Spread
    refits: int


class Window(NamedTuple):
    """Candidates for an integer sub-scale: round(|v|) + low + k, k < n, with both signs."""

    low: int
    n: int


class XsPlan(NamedTuple):
    """How far the search of a super-block goes; the fields are those of xs_plan in native/iq4_xs.h."""

    first: Spread
    scan: Window
    search: Window
    settle: Window
    refits: int
    groups: int
    start: np.float32
    step: np.float32


def _xs_plan(
    first: Spread,
    scan: tuple[int, int],
    search: tuple[int, int],
    settle: tuple[int, int],
    refits: int,
    groups: tuple[int, float, float],
) -> XsPlan:
    n, start, stop = groups[0], np.float32(groups[1]), np.float32(groups[2])
    step = (stop - start) / np.float32(n * LANES - 1)
    return XsPlan(first, Window(*scan), Window(*search), Window(*settle), refits, n, start, step)


# By effort (fast, default, best), as in the C files.
NL = (
    NlPlan(spread(0.65, 1.4, 12, True), NO_SPREAD, 1),
    NlPlan(spread(0.6, 1.6, 24, True), spread(0.985, 1.015, 4, True), 1),
    NlPlan(spread(0.35, 2.2, 128, True), spread(0.98, 1.02, 16, True), 4),
)
XS = (
    _xs_plan(spread(0.65, 1.5, 12, True), (-1, 3), (-1, 4), (0, 0), 0, (1, 0.97, 1.12)),
    _xs_plan(spread(0.63, 1.55, 24, True), (-2, 6), (-2, 6), (0, 1), 1, (2, 0.97, 1.3)),
    _xs_plan(spread(0.6, 1.6, 32, True), (-5, 12), (-5, 12), (-2, 6), 4, (16, 0.8, 1.5)),
)


# ---- IQ4_NL ----


@inline
def _search_steps(x: Any, w: Any, s: Any, power: Any, best: Any, found: Any) -> Any:
    """The better of what was found and the subnormal scales around s, where a step is coarse."""
    given = s * power
    if not given < COARSE or best == ZERO:
        return found
    for k in range(-STEPS, STEPS + 1):
        s = max(given + np.float32(k) * LEAST_SCALE, LEAST_SCALE) * (ONE / power)
        for side in range(2):
            e = error_of(x, w, s, side)
            if e < best:
                best, found = e, -s if side else s
    return found


@inline
def _choose_nl_scale(x: Any, w: Any, power: Any, plan: Any) -> Any:
    """The storable scale of least error; 0 if zeros are as good."""
    v, nowhere = natural_scale(x, w), np.empty((0, 0, 0), np.float32)
    gain, fit = search_gains(x, w, v, plan.first, ZERO, v, nowhere)
    gain, fit = search_gains(x, w, fit, plan.second, gain, fit, nowhere)
    best, found = energy_of(x, w), ZERO
    for r in range(plan.refits + 1):
        s = storable(abs(fit), power) * (-ONE if fit < ZERO else ONE)
        e = error_of(x, w, s, 0)
        if e < best:
            best, found = e, s
        if r < plan.refits:
            xl, ll = moments_of(x, w, ONE / s, 0)
            fit = xl / ll
    return _search_steps(x, w, abs(s), power, best, found) * power


@kernel
def encode_iq4_nl(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    tile, weights = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for b in range(x.size // BLOCK):
        at, row = slice(b * BLOCK, b * BLOCK + BLOCK), out[18 * b : 18 * b + 18]
        power = fill_tile(x[at], w[at], objective, tile, weights)
        d = _choose_nl_scale(tile, weights, power, NL[effort])
        store_u16(row, 0, f16_from_scale(d))
        round_block(x[at], d, row[2:])


# ---- IQ4_XS ----


@inline
def _search_sub(x: Any, w: Any, d: Any, v: Any, window: Any) -> Any:
    """The best integer sub-scale around v at d, and its error."""
    best, found = energy_of(x, w), ZERO
    middle = (abs(v) / d + MAGIC) - MAGIC
    for k in range(window.n):
        c = min(max(middle + np.float32(window.low + k), ONE), MOST + ONE)
        e = error_of(x, w, d * c, 0)
        if e < best and c <= MOST:
            best, found = e, c
        e = error_of(x, w, d * c, 1)
        if e < best:
            best, found = e, -c
    return found, best


@inline
def _search_super(tile: Any, weights: Any, d: Any, around: Any, window: Any, now: Any) -> Any:
    """For one d the best sub-scales, in now[0]; their moments are now[1] and now[2]; the error of the block."""
    errors = np.empty(SUBS, np.float32)
    for j in range(SUBS):
        x, w = tile[j * BLOCK : j * BLOCK + BLOCK], weights[j * BLOCK : j * BLOCK + BLOCK]
        now[0, j], errors[j] = _search_sub(x, w, d, around[j], window)
        now[1, j], now[2, j] = moments_of(x, w, inverse_of(d * now[0, j]), 0)
    return sum_of_eight(errors)


@inline
def _refitted(best: Any, power: Any) -> Any:
    """The least-squares d for the codes found, storable; as it was if all sub-scales are 0."""
    above, below = best[0] * best[1], (best[0] * best[0]) * best[2]
    b = sum_of_eight(below)
    return storable(sum_of_eight(above) * inverse_of(b), power) if b > ZERO else best[3, 0]


@inline
def _try_d(tile: Any, weights: Any, d: Any, around: Any, window: Any, best: Any) -> None:
    """Searches at d. ``best``: sub-scales, two rows of moments, then d and the error."""
    now = np.empty((3, SUBS), np.float32)
    error = _search_super(tile, weights, d, around, window, now)
    if error < best[3, 1]:
        best[:3] = now
        best[3, 0], best[3, 1] = d, error


@inline
def _estimate(rows: Any, own: Any, natural: Any, d: Any, plan: Any) -> Any:
    """The sum of the blocks' least estimated errors at d, less their energy."""
    total, inverse, first = ZERO, ONE / d, plan.first
    start, last = first.start / first.step, np.float32(first.n) - ONE
    for j in range(SUBS):
        middle, best = (abs(own[j] * inverse) + MAGIC) - MAGIC, ZERO
        unit = ONE / (natural[j] * first.step)
        for k in range(plan.scan.n):
            c = min(max(middle + np.float32(plan.scan.low + k), ONE), MOST)
            s = d * c
            at = np.int64((min(max(s * unit - start, ZERO), last) + MAGIC) - MAGIC)
            for side in range(2):
                xl, ll = rows[j, side, at, 0], rows[j, side, at, 1]
                best = min(best, s * (s * ll - (xl + xl)))
        total += best
    return total


@inline
def _storable_above(d: Any, power: Any) -> Any:
    """The storable scale next to d, or the next one up where more than a tenth would be lost."""
    v = storable(d, power)
    return storable(v + LEAST_SCALE / power, power) if v < d * np.float32(0.9) else v


@inline
def _choose_d(rows: Any, own: Any, natural: Any, power: Any, plan: Any, group: int) -> Any:
    """The most promising of a group of d; of equals, the first."""
    reach = largest_of(own) * (ONE / MOST)
    best, found = HOPELESS, ZERO
    for k in range(LANES):
        d = _storable_above(reach * (plan.start + np.float32(group * LANES + k) * plan.step), power)
        e = _estimate(rows, own, natural, d, plan)
        if e < best:
            best, found = e, d
    return found


@inline
def _choose_xs_scales(tile: Any, weights: Any, power: Any, plan: Any) -> Any:
    """d in units of the tile, and the sub-scales."""
    own, natural = np.empty(SUBS, np.float32), np.empty(SUBS, np.float32)
    rows = np.empty((SUBS, 2, plan.first.n, 2), np.float32)
    for j in range(SUBS):
        x, w = tile[j * BLOCK : j * BLOCK + BLOCK], weights[j * BLOCK : j * BLOCK + BLOCK]
        natural[j] = natural_scale(x, w)
        _, own[j] = search_gains(x, w, natural[j], plan.first, ZERO, natural[j], rows[j])
    best = np.zeros((4, SUBS), np.float32)
    best[3, 1] = HOPELESS
    for group in range(plan.groups):
        d = _choose_d(rows, own, natural, power, plan, group)
        _try_d(tile, weights, d, own, plan.search, best)
    for _ in range(plan.refits):
        d = _refitted(best, power)
        _try_d(tile, weights, d, best[1] / best[2], plan.settle, best)
    return best[3, 0], best[0]


@kernel
def encode_iq4_xs(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    tile, weights = np.empty(SUPER, np.float32), np.empty(SUPER, np.float32)
    for b in range(x.size // SUPER):
        at, row = slice(b * SUPER, b * SUPER + SUPER), out[136 * b : 136 * b + 136]
        power = fill_tile(x[at], w[at], objective, tile, weights)
        d, scales = _choose_xs_scales(tile, weights, power, XS[effort])
        d *= power
        store_u16(row, 0, f16_from_scale(d))
        row[2:8] = 0
        for j in range(SUBS):
            c = np.int64(scales[j]) + 32
            row[2 + j // 4] |= np.uint8((c >> 4) << (2 * (j % 4)))
            row[4 + j // 2] |= np.uint8((c & 15) << (4 * (j % 2)))
            sub = x[b * SUPER + j * BLOCK : b * SUPER + j * BLOCK + BLOCK]
            round_block(sub, d * scales[j], row[8 + 16 * j : 24 + 16 * j])


# ---- decoding ----


@inline
def _decode_block(nibbles: Any, s: Any, y: Any) -> None:
    for i in range(BLOCK):
        y[i] = s * VALUES[(nibbles[i % 16] >> (4 * (i // 16))) & 15]


@kernel
def decode_iq4_nl(row: Any, y: Any) -> None:
    for b in range(y.size // BLOCK):
        at = 18 * b
        _decode_block(row[at + 2 : at + 18], load_f16(row, at), y[b * BLOCK : b * BLOCK + BLOCK])


@kernel
def decode_iq4_xs(row: Any, y: Any) -> None:
    for b in range(y.size // SUPER):
        at = 136 * b
        d = load_f16(row, at)
        for j in range(SUBS):
            low = (np.int64(row[at + 4 + j // 2]) >> (4 * (j % 2))) & 15
            high = (np.int64(row[at + 2 + j // 4]) >> (2 * (j % 4))) & 3
            start = b * SUPER + j * BLOCK
            nibbles = row[at + 8 + 16 * j : at + 24 + 16 * j]
            _decode_block(nibbles, d * np.float32((low | (high << 4)) - 32), y[start : start + BLOCK])


DECODERS: dict[str, Kernel] = {"iq4_nl": decode_iq4_nl, "iq4_xs": decode_iq4_xs}
ENCODERS: dict[str, Kernel] = {"iq4_nl": encode_iq4_nl, "iq4_xs": encode_iq4_xs}
