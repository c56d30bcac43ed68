"""Encoders in numba of Q3_K and Q6_K; native/kquants_symmetric.c tells layouts, method and figures.

There sixteen sub-blocks are searched side by side; here one after the other, in the same order of operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguftool.codecs import jit_symmetric_blocks
from gguftool.codecs.jit_bits import ZERO, Kernel, f16_from_scale, inline, kernel, store_u16
from gguftool.codecs.jit_symmetric_search import (
    FAR,
    GT_MSE,
    GT_REF,
    HOPELESS,
    LANES,
    LEAST_SCALE,
    MAGIC,
    ONE,
    TINY_WEIGHT,
    Spread,
    energy_of,
    error_of,
    inverse_of,
    largest_of,
    moments_of,
    own_scale,
    power_of_two_of,
    round_codes,
    search_spread,
    spread,
    storable,
    sum16,
)

SUPER = 256
SUB = 16


class Window(NamedTuple):
    """Candidates for an integer sub-scale: round(|v|) + low + k, k < n, with the sign of v or with both."""

    low: int
    n: int
    both: bool


class SuperPlan(NamedTuple):
    """How far the search of a super-block goes; the fields are those of plan in native/kquants_symmetric.c."""

    first: Spread
    headroom: np.float32
    refine: Window
    refits: int
    around: Window
    settles: int
    starts: int
    from_start: np.float32
    step_start: np.float32


def _super_plan(
    first: Spread,
    headroom: float,
    refine: tuple[int, int, bool],
    refits: int,
    around: tuple[int, int, bool],
    settles: int,
    starts: int,
    from_start: float,
    step_start: float,
) -> SuperPlan:
    return SuperPlan(
        first,
        np.float32(headroom),
        Window(*refine),
        refits,
        Window(*around),
        settles,
        starts,
        np.float32(from_start),
        np.float32(step_start),
    )


NONE = (0, 0, False)

# By effort (fast, default, best), as in the C file.
Q3_K = (
    _super_plan(spread(0.79, 1.37, 4, True), 1.0, (-1, 2, True), 1, (0, 2, True), 0, 1, 1.03, 0.0),
    _super_plan(spread(0.53, 1.38, 12, True), 1.0, (-2, 4, True), 5, (-1, 2, True), 0, 5, 0.94, 0.03),
    _super_plan(spread(0.4, 1.6, 64, True), 1.0, (-5, 10, True), 5, (-8, 16, True), 2, 25, 0.82, 0.015),
)
Q3_K_EVEN = (
    _super_plan(spread(0.76, 1.36, 8, False), 1.0, (-1, 4, False), 1, (-1, 2, False), 1, 1, 1.02, 0.0),
    _super_plan(spread(0.53, 1.38, 12, False), 1.0, (-2, 4, False), 3, (-1, 2, True), 0, 5, 0.94, 0.03),
    _super_plan(spread(0.4, 1.6, 64, True), 1.0, (-5, 10, True), 5, (-8, 16, True), 2, 25, 0.82, 0.015),
)
Q6_K = (
    _super_plan(spread(0.92, 1.18, 8, False), 1.0, (-1, 4, False), 0, NONE, 0, 0, 0.0, 0.0),
    _super_plan(spread(0.95, 1.35, 24, False), 1.03, (-2, 8, False), 0, (-7, 12, False), 0, 3, 0.98, 0.02),
    _super_plan(spread(0.65, 1.6, 160, False), 1.03, (-10, 20, False), 2, (-24, 48, False), 1, 33, 0.84, 0.01),
)


@inline
def _fill_super(x: Any, w: Any, objective: int, with_root: bool, tile: Any, weights: Any) -> Any:
    """Scaled values and weights of a super-block, and the power of two that undoes the scaling; 0 for a zero block."""
    largest = ZERO
    for i in range(SUPER):
        largest = max(largest, abs(x[i]))
    if largest < np.float32(0.5) * LEAST_SCALE:
        return ZERO
    power = power_of_two_of(min(largest, FAR))
    for i in range(SUPER):
        tile[i] = min(max(x[i], -FAR), FAR) * (ONE / power)
        weights[i] = w[i] if w.size and objective != GT_MSE else ONE
    if objective == GT_REF and not w.size:
        for i in range(SUPER):
            weights[i] = max(tile[i] * tile[i], TINY_WEIGHT)
    elif objective == GT_REF and with_root:
        sums = np.zeros(LANES, np.float32)
        for i in range(SUPER):
            sums[i // SUB] += tile[i] * tile[i]
        twice_mean = sum16(sums) * np.float32(2.0 / SUPER)
        for i in range(SUPER):
            weights[i] = weights[i] * np.sqrt(twice_mean + tile[i] * tile[i])
    return power


@inline
def _search_sub(x: Any, w: Any, d: Any, v: Any, levels: Any, top: Any, window: Any) -> Any:
    """The best integer sub-scale around v at d, and its error."""
    best, found = energy_of(x, w), ZERO
    sign = -ONE if v < ZERO else ONE
    middle = (abs(v) / d + MAGIC) - MAGIC
    for k in range(window.n):
        c = max(middle + np.float32(window.low + k), ONE)
        if not window.both:
            c = min(c, top) * sign
            e = error_of(x, w, d * c, -levels, levels - ONE)
            if e < best:
                best, found = e, c
            continue
        c = min(c, top + ONE)
        e = error_of(x, w, d * c, -levels, levels - ONE)
        if e < best and c <= top:
            best, found = e, c
        e = error_of(x, w, d * c, ONE - levels, levels)
        if e < best:
            best, found = e, -c
    return found, best


@inline
def _search_super(tile: Any, weights: Any, d: Any, around: Any, levels: Any, top: Any, window: Any, now: Any) -> Any:
    """For one d the best sub-scales, in now[0]; their moments are now[1] and now[2]; the error of the block."""
    errors = np.empty(LANES, np.float32)
    for j in range(LANES):
        x, w = tile[j * SUB : j * SUB + SUB], weights[j * SUB : j * SUB + SUB]
        now[0, j], errors[j] = _search_sub(x, w, d, around[j], levels, top, window)
        now[1, j], now[2, j] = moments_of(x, w, inverse_of(d * now[0, j]), levels)
    return sum16(errors)


@inline
def _refitted(now: Any, power: Any) -> Any:
    xl, ll = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for j in range(LANES):
        c = now[0, j]
        xl[j] = c * now[1, j]
        ll[j] = (c * c) * now[2, j]
    below = sum16(ll)
    return storable(sum16(xl) / below, power) if below > ZERO else ZERO


@inline
def _descend(
    tile: Any, weights: Any, power: Any, d: Any, around: Any, levels: Any, top: Any, window: Any, refits: int, best: Any
) -> None:
    """Searches at d, then at every refitted d. ``best``: sub-scales, two rows of moments, then d and the error."""
    now = np.empty((3, LANES), np.float32)
    error = _search_super(tile, weights, d, around, levels, top, window, now)
    for r in range(refits + 1):
        if error < best[3, 1]:
            best[:3] = now
            best[3, 0], best[3, 1] = d, error
        refit = _refitted(now, power)
        if r == refits or refit in (d, ZERO):
            return
        d = refit
        own = np.empty(LANES, np.float32)
        for j in range(LANES):
            own[j] = now[1, j] * inverse_of(now[2, j])
        error = _search_super(tile, weights, d, own, levels, top, window, now)


@inline
def _choose_super_scales(tile: Any, weights: Any, power: Any, levels: Any, top: Any, plan: Any) -> Any:
    """d in units of the tile, and the sub-scales."""
    around = np.empty(LANES, np.float32)
    largest = ZERO
    for j in range(LANES):
        x, w = tile[j * SUB : j * SUB + SUB], weights[j * SUB : j * SUB + SUB]
        v = largest_of(x) * (ONE / levels)
        s, _ = search_spread(x, w, LEAST_SCALE if v == ZERO else v, levels, plan.first, HOPELESS)
        around[j] = own_scale(x, w, ONE / s, levels)
        largest = max(largest, abs(around[j]))
    d = storable(largest * (plan.headroom / top), power)
    if d * top < largest * np.float32(0.99):
        d = storable(d + LEAST_SCALE / power, power)
    best = np.zeros((4, LANES), np.float32)
    best[3, 1] = HOPELESS
    _descend(tile, weights, power, d, around, levels, top, plan.refine, plan.refits, best)
    d = best[3, 0]
    for j in range(LANES):
        around[j] = best[1, j] * inverse_of(best[2, j])
    for k in range(plan.starts):
        start = storable(d * (plan.from_start + np.float32(k) * plan.step_start), power)
        if start != d:
            _descend(tile, weights, power, start, around, levels, top, plan.around, plan.settles, best)
    return best[3, 0], best[0]


@inline
def _encode_super(
    x: Any, w: Any, objective: int, with_root: bool, levels: Any, top: Any, plan: Any, codes: Any, scales: Any
) -> Any:
    """Codes and sub-scales of one super-block; its d."""
    tile, weights = np.empty(SUPER, np.float32), np.empty(SUPER, np.float32)
    d = ZERO
    scales[:] = ZERO
    power = _fill_super(x, w, objective, with_root, tile, weights)
    if power > ZERO:
        d, found = _choose_super_scales(tile, weights, power, levels, top, plan)
        d *= power
        scales[:] = found
    for j in range(LANES):
        round_codes(x[j * SUB : j * SUB + SUB], d * scales[j], levels, codes[j * SUB : j * SUB + SUB])
    return d


@inline
def _pack_q3_k(codes: Any, scales: Any, d: Any, out: Any) -> None:
    out[:] = 0
    for i in range(SUPER):
        out[i % 32] |= np.uint8((codes[i] >> 2) << (i // 32))
        out[32 + 32 * (i // 128) + i % 32] |= np.uint8((codes[i] & 3) << (2 * (i % 128 // 32)))
    for j in range(LANES):
        s = np.int64(scales[j]) + 32
        out[96 + j % 8] |= np.uint8((s & 15) << (4 * (j // 8)))
        out[104 + j % 4] |= np.uint8((s >> 4) << (2 * (j // 4)))
    store_u16(out, 108, f16_from_scale(d))


@inline
def _pack_q6_k(codes: Any, scales: Any, d: Any, out: Any) -> None:
    out[:] = 0
    for i in range(SUPER):
        half, group, place = i // 128, i % 128 // 32, i % 32
        out[64 * half + 32 * (group % 2) + place] |= np.uint8((codes[i] & 15) << (4 * (group // 2)))
        out[128 + 32 * half + place] |= np.uint8((codes[i] >> 4) << (2 * group))
    for j in range(LANES):
        out[192 + j] = np.uint8(np.int64(scales[j]) & 255)
    store_u16(out, 208, f16_from_scale(d))


@kernel
def encode_q3_k(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    codes, scales = np.empty(SUPER, np.uint8), np.empty(LANES, np.float32)
    even = objective == GT_MSE or (w.size == 0 and objective != GT_REF)
    plan = Q3_K_EVEN[effort] if even else Q3_K[effort]
    for b in range(x.size // SUPER):
        at = slice(b * SUPER, b * SUPER + SUPER)
        d = _encode_super(x[at], w[at], objective, True, np.float32(4), np.float32(31), plan, codes, scales)
        _pack_q3_k(codes, scales, d, out[110 * b : 110 * b + 110])


@kernel
def encode_q6_k(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    codes, scales = np.empty(SUPER, np.uint8), np.empty(LANES, np.float32)
    for b in range(x.size // SUPER):
        at = slice(b * SUPER, b * SUPER + SUPER)
        d = _encode_super(x[at], w[at], objective, False, np.float32(32), np.float32(127), Q6_K[effort], codes, scales)
        _pack_q6_k(codes, scales, d, out[210 * b : 210 * b + 210])


ENCODERS: dict[str, Kernel] = {
    "q3_K": encode_q3_k,
    "q6_K": encode_q6_k,
} | jit_symmetric_blocks.ENCODERS
