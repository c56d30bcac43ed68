"""Encoders in numba of Q3_K and Q6_K, and of Q4_0 and Q5_0 with an importance: the searches of the C kernels.

native/kquants_symmetric.c and native/legacy_symmetric.c tell layouts, method and figures. There sixteen blocks are
searched side by side; here one after the other, in the same order of operations, so the bytes are the same. Every
number is a float32; what looks like a detour (``x * (y * y)``, sums in sixteen parts) is the order of the C code.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gguftool.codecs.jit_bits import ZERO, Kernel, f16_from_scale, inline, kernel, store_u16

LANES = 16
SUPER = 256
SUB = 16
BLOCK = 32

GT_REF = 1
GT_MSE = 2

ONE = np.float32(1)
MAGIC = np.float32(12582912)
TINY_WEIGHT = np.float32(2.0**-60)
LEAST_SCALE = np.float32(2.0**-24)
LARGEST_SCALE = np.float32(65504)
FAR = np.float32(2.0**30)
FARTHEST = np.float32(2.0**126)
HOPELESS = np.float32(2.0**100)


class Spread(NamedTuple):
    """Candidate scales v * (start + k * step), k < n, with the sign of v or with both."""

    start: np.float32
    step: np.float32
    n: int
    both: bool


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


class BlockPlan(NamedTuple):
    """How far the search of a block of 32 goes; the fields are those of plan in native/legacy_symmetric.c."""

    first: Spread
    second: Spread
    refits: int


def _spread(start: float, stop: float, count: int, both: bool) -> Spread:
    step = (np.float32(stop) - np.float32(start)) / np.float32(count - 1)
    return Spread(np.float32(start), np.float32(step), count, both)


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
NO_SPREAD = Spread(ZERO, ZERO, 0, False)

# By effort: fast, default, best.
Q3_K = (
    _super_plan(_spread(0.79, 1.37, 4, True), 1.0, (-1, 2, True), 1, (0, 2, True), 0, 1, 1.03, 0.0),
    _super_plan(_spread(0.53, 1.38, 12, True), 1.0, (-2, 4, True), 5, (-1, 2, True), 0, 5, 0.94, 0.03),
    _super_plan(_spread(0.4, 1.6, 64, True), 1.0, (-5, 10, True), 5, (-8, 16, True), 2, 25, 0.82, 0.015),
)
Q6_K = (
    _super_plan(_spread(0.92, 1.18, 8, False), 1.0, (-1, 4, False), 0, NONE, 0, 0, 0.0, 0.0),
    _super_plan(_spread(0.95, 1.35, 24, False), 1.03, (-2, 8, False), 0, (-7, 12, False), 0, 3, 0.98, 0.02),
    _super_plan(_spread(0.65, 1.6, 160, False), 1.03, (-10, 20, False), 2, (-24, 48, False), 1, 33, 0.84, 0.01),
)
Q4_0 = (
    BlockPlan(_spread(0.65, 1.27, 12, False), NO_SPREAD, 2),
    BlockPlan(_spread(0.6, 1.37, 20, True), _spread(0.95, 1.05, 8, False), 3),
    BlockPlan(_spread(0.4, 1.8, 256, True), _spread(0.98, 1.02, 16, True), 8),
)
Q5_0 = (
    BlockPlan(_spread(0.9, 1.23, 12, False), NO_SPREAD, 0),
    BlockPlan(_spread(0.7, 1.46, 36, False), _spread(0.93, 1.07, 8, True), 3),
    BlockPlan(_spread(0.4, 2.0, 512, True), _spread(0.98, 1.02, 32, True), 8),
)


# ---- scales ----


@inline
def _power_of_two(x: Any) -> Any:
    """2^k with k the exponent of x >= 0, but at least -26."""
    if x == ZERO:
        return np.float32(2.0**-26)
    return np.float32(math.ldexp(1.0, max(math.frexp(x)[1] - 1, -26)))


@inline
def _round_to_f16(x: Any) -> Any:
    """The binary16 value nearest to x >= 0, neither zero nor infinite."""
    step = np.float32(math.ldexp(1.0, max(math.frexp(x)[1] - 11, -24)))
    if x > LARGEST_SCALE:
        return LARGEST_SCALE
    return min(max(((x / step + MAGIC) - MAGIC) * step, LEAST_SCALE), LARGEST_SCALE)


@inline
def _storable(d: Any, power: Any) -> Any:
    return _round_to_f16(d * power) * (ONE / power)


@inline
def _inverse(s: Any) -> Any:
    return ZERO if s == ZERO else ONE / s


@inline
def _sum16(p: Any) -> Any:
    a = np.empty(8, np.float32)
    for i in range(8):
        a[i] = p[i] + p[i + 8]
    for i in range(4):
        a[i] = a[i] + a[i + 4]
    return (a[0] + a[2]) + (a[1] + a[3])


# ---- one block at one scale ----


@inline
def _code(t: Any, low: Any, high: Any) -> Any:
    """The nearest of the integers low .. high, ties to even."""
    return (min(max(t, low), high) + MAGIC) - MAGIC


@inline
def _error(x: Any, w: Any, s: Any, low: Any, high: Any) -> Any:
    """sum w (x - s l)^2."""
    inverse, e = ONE / s, ZERO
    for i in range(x.size):
        t = x[i] * inverse
        rest = t - _code(t, low, high)
        e += (w[i] * rest) * rest
    return e * (s * s)


@inline
def _moments(x: Any, w: Any, inverse: Any, levels: Any) -> Any:
    """sum w x l and sum w l^2."""
    xl, ll = ZERO, ZERO
    for i in range(x.size):
        code = _code(x[i] * inverse, -levels, levels - ONE)
        wl = w[i] * code
        xl += wl * x[i]
        ll += wl * code
    return xl, ll


@inline
def _own_scale(x: Any, w: Any, inverse: Any, levels: Any) -> Any:
    """The least-squares scale of the codes at a scale."""
    xl, ll = _moments(x, w, inverse, levels)
    return xl * _inverse(ll)


@inline
def _energy(x: Any, w: Any) -> Any:
    a = ZERO
    for i in range(x.size):
        a += (w[i] * x[i]) * x[i]
    return a


@inline
def _largest(x: Any) -> Any:
    """max |x|, with the sign of the scale that puts this element on -N."""
    high, low = ZERO, ZERO
    for v in x:
        high = max(high, v)
        low = min(low, v)
    return -high if high > -low else -low


@inline
def _search_spread(x: Any, w: Any, v: Any, levels: Any, plan: Any, best: Any) -> Any:
    """The best real scale around v if its error is below ``best``, else v; and the error."""
    found = v
    for k in range(plan.n):
        s = v * (plan.start + np.float32(k) * plan.step)
        e = _error(x, w, s, -levels, levels - ONE)
        if e < best:
            best, found = e, s
        if plan.both:
            e = _error(x, w, s, ONE - levels, levels)
            if e < best:
                best, found = e, -s
    return found, best


# ---- super-blocks ----


@inline
def _fill_super(x: Any, w: Any, objective: int, with_root: bool, tile: Any, weights: Any) -> Any:
    """Scaled values and weights of a super-block, and the power of two that undoes the scaling; 0 for a zero block."""
    largest = ZERO
    for i in range(SUPER):
        largest = max(largest, abs(x[i]))
    if largest < np.float32(0.5) * LEAST_SCALE:
        return ZERO
    power = _power_of_two(min(largest, FAR))
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
        twice_mean = _sum16(sums) * np.float32(2.0 / SUPER)
        for i in range(SUPER):
            weights[i] = weights[i] * np.sqrt(twice_mean + tile[i] * tile[i])
    return power


@inline
def _search_sub(x: Any, w: Any, d: Any, v: Any, levels: Any, top: Any, window: Any) -> Any:
    """The best integer sub-scale around v at d, and its error."""
    best, found = _energy(x, w), ZERO
    sign = -ONE if v < ZERO else ONE
    middle = (abs(v) / d + MAGIC) - MAGIC
    for k in range(window.n):
        c = max(middle + np.float32(window.low + k), ONE)
        if not window.both:
            c = min(c, top) * sign
            e = _error(x, w, d * c, -levels, levels - ONE)
            if e < best:
                best, found = e, c
            continue
        c = min(c, top + ONE)
        e = _error(x, w, d * c, -levels, levels - ONE)
        if e < best and c <= top:
            best, found = e, c
        e = _error(x, w, d * c, ONE - levels, levels)
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
        now[1, j], now[2, j] = _moments(x, w, _inverse(d * now[0, j]), levels)
    return _sum16(errors)


@inline
def _refitted(now: Any, power: Any) -> Any:
    xl, ll = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for j in range(LANES):
        c = now[0, j]
        xl[j] = c * now[1, j]
        ll[j] = (c * c) * now[2, j]
    below = _sum16(ll)
    return _storable(_sum16(xl) / below, power) if below > ZERO else ZERO


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
            own[j] = now[1, j] * _inverse(now[2, j])
        error = _search_super(tile, weights, d, own, levels, top, window, now)


@inline
def _choose_super_scales(tile: Any, weights: Any, power: Any, levels: Any, top: Any, plan: Any) -> Any:
    """d in units of the tile, and the sub-scales."""
    around = np.empty(LANES, np.float32)
    largest = ZERO
    for j in range(LANES):
        x, w = tile[j * SUB : j * SUB + SUB], weights[j * SUB : j * SUB + SUB]
        v = _largest(x) * (ONE / levels)
        s, _ = _search_spread(x, w, LEAST_SCALE if v == ZERO else v, levels, plan.first, HOPELESS)
        around[j] = _own_scale(x, w, ONE / s, levels)
        largest = max(largest, abs(around[j]))
    d = _storable(largest * (plan.headroom / top), power)
    if d * top < largest * np.float32(0.99):
        d = _storable(d + LEAST_SCALE / power, power)
    best = np.zeros((4, LANES), np.float32)
    best[3, 1] = HOPELESS
    _descend(tile, weights, power, d, around, levels, top, plan.refine, plan.refits, best)
    d = best[3, 0]
    for j in range(LANES):
        around[j] = best[1, j] * _inverse(best[2, j])
    for k in range(plan.starts):
        start = _storable(d * (plan.from_start + np.float32(k) * plan.step_start), power)
        if start != d:
            _descend(tile, weights, power, start, around, levels, top, plan.around, plan.settles, best)
    return best[3, 0], best[0]


@inline
def _round_codes(x: Any, s: Any, levels: Any, codes: Any) -> None:
    """Codes plus N for a given scale."""
    inverse = _inverse(s)
    for i in range(x.size):
        codes[i] = np.uint8(np.int64(_code(x[i] * inverse, -levels, levels - ONE) + levels))


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
        _round_codes(x[j * SUB : j * SUB + SUB], d * scales[j], levels, codes[j * SUB : j * SUB + SUB])
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
    for b in range(x.size // SUPER):
        at = slice(b * SUPER, b * SUPER + SUPER)
        d = _encode_super(x[at], w[at], objective, True, np.float32(4), np.float32(31), Q3_K[effort], codes, scales)
        _pack_q3_k(codes, scales, d, out[110 * b : 110 * b + 110])


@kernel
def encode_q6_k(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    codes, scales = np.empty(SUPER, np.uint8), np.empty(LANES, np.float32)
    for b in range(x.size // SUPER):
        at = slice(b * SUPER, b * SUPER + SUPER)
        d = _encode_super(x[at], w[at], objective, False, np.float32(32), np.float32(127), Q6_K[effort], codes, scales)
        _pack_q6_k(codes, scales, d, out[210 * b : 210 * b + 210])


# ---- blocks of 32 ----


@inline
def _row_mean(x: Any, inverse: Any) -> Any:
    """Mean of x^2 over the row, in units of the row."""
    sums = np.zeros(LANES, np.float32)
    for i in range(x.size):
        v = x[i] * inverse
        sums[i % LANES] += v * v
    return _sum16(sums) / np.float32(x.size)


@inline
def _choose_block_scale(x: Any, w: Any, levels: Any, plan: Any) -> Any:
    """The storable scale of least error; 0 if zeros are as good."""
    largest = _largest(x)
    power = _power_of_two(abs(largest))
    inverse = ONE / power
    tile = np.empty(BLOCK, np.float32)
    for i in range(BLOCK):
        tile[i] = x[i] * inverse
    v = max(abs(largest) * inverse, LEAST_SCALE) * (-ONE if largest < ZERO else ONE) * (ONE / levels)
    s, error = _search_spread(tile, w, v, levels, plan.first, HOPELESS)
    s, error = _search_spread(tile, w, s, levels, plan.second, error)
    fit = _own_scale(tile, w, ONE / s, levels)
    best, found = _energy(tile, w), ZERO
    for r in range(plan.refits + 1):
        s = _round_to_f16(abs(fit) * power) * (-ONE if fit < ZERO else ONE) * (ONE / power)
        e = _error(tile, w, s, -levels, levels - ONE)
        if e < best:
            best, found = e, s
        if r < plan.refits:
            fit = _own_scale(tile, w, ONE / s, levels)
    return found * power


@inline
def _encode_blocks(x: Any, w: Any, out: Any, objective: int, levels: Any, plan: Any) -> None:
    five = levels == np.float32(16)
    size = out.size // (x.size // BLOCK)
    row_largest = ZERO
    for v in x:
        row_largest = max(row_largest, abs(v))
    inverse = ONE / _power_of_two(min(row_largest, FARTHEST))
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
        _round_codes(block, d, levels, codes)
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


ENCODERS: dict[str, Kernel] = {"q3_K": encode_q3_k, "q6_K": encode_q6_k, "q4_0": encode_q4_0, "q5_0": encode_q5_0}
