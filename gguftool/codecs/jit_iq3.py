"""Encoders of IQ3_S and IQ3_XXS in numba; native/iq3.c and native/grid_search.c tell the method and figures.

There sixteen sub-blocks are searched side by side; here one after the other, in the same order of operations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguftool.codecs.jit_bits import (
    HALF,
    ZERO,
    Kernel,
    bits_of,
    f16_from_scale,
    f16_to_float,
    inline,
    kernel,
    store_u16,
)
from gguftool.codecs.jit_grid_search import ABOVE_ALL, GROUPS, SUB, Book, book, cost, fit, scan
from gguftool.codecs.jit_iq4_search import sum_of_eight
from gguftool.codecs.jit_symmetric_search import (
    FAR,
    GT_MSE,
    GT_REF,
    LANES,
    LEAST_SCALE,
    MAGIC,
    ONE,
    TINY_WEIGHT,
    power_of_two_of,
    sum16,
)

SUPER = 256
SUBS = 8
TOP = np.float32(15)
MOST_CODES = np.float32(31)
TWO = np.float32(2)
OUTLIER = np.float32(5)
FAR_BELOW, BELOW_STEP, BELOW_COUNT = np.float32(0.7), np.float32(0.8), 18
MUCH_BETTER = np.float32(0.5)
UNIT = np.float32(2.0**-17)
NO_ENERGY = np.float32(2.0**-100)
NARROW = np.float32(2.0**-120)
BEYOND = np.float32(64)

IQ3_S = book("iq3_s", 1, False)
IQ3_XXS = book("iq3_xxs", 4, True)


class Plan(NamedTuple):
    """How far a search goes; the fields are those of grid_plan in native/grid_search.h."""

    first: np.float32
    step: np.float32
    n: int
    d_first: np.float32
    d_step: np.float32
    d_n: int
    low: int
    width: int
    starts: int
    start_first: np.float32
    start_step: np.float32
    start_low: int
    start_width: int


def _plan(first: float, step: float, n: int, d: tuple[float, float, int], window: tuple[int, int]) -> Plan:
    """A plan without other starts."""
    d_range = np.float32(d[0]), np.float32(d[1]), d[2]
    return Plan(np.float32(first), np.float32(step), n, *d_range, *window, 0, ZERO, ZERO, 0, 0)


_FAST = _plan(0.049, 0.008, 6, (0.9, 0.02, 16), (0, 1))
_BEST = _plan(0.035, 0.002, 45, (0.8, 0.01, 64), (-2, 5))._replace(
    starts=11, start_first=np.float32(0.9), start_step=np.float32(0.02), start_low=-1, start_width=3
)
# By effort (fast, default, best), as in the C file.
IQ3_S_PLANS = (_FAST, _plan(0.045, 0.004, 14, (0.9, 0.015, 24), (-1, 3)), _BEST)
IQ3_XXS_PLANS = (_FAST, _plan(0.045, 0.005, 11, (0.9, 0.015, 24), (-1, 3)), _BEST)


class Block(NamedTuple):
    """A super-block by sub-blocks: magnitudes, weights and signs, and what the search needs of each."""

    x: Any
    w: Any
    root: Any  # sqrt(w / unit)
    unit: Any
    size: Any
    signs: Any  # per eight weights
    odd: Any


# ---- the block ----


@inline
def _weigh_as_reference(w: Any, x: Any, weighted: bool) -> None:
    sums = np.zeros(LANES, np.float32)
    for i in range(SUPER):
        sums[i % LANES] += x[i] * x[i]
    mean = sum16(sums) * (TWO / np.float32(SUPER))
    for i in range(SUPER):
        v2 = x[i] * x[i]
        w[i] = max(w[i] * np.sqrt(mean + v2) if weighted else v2, TINY_WEIGHT)


@inline
def _fill(block: Block, x: Any, w: Any, at: int, objective: int) -> Any:
    """Scales the super-block at ``at`` by a power of two, which comes back, and takes its signs off."""
    values, weights = np.empty(SUPER, np.float32), np.ones(SUPER, np.float32)
    most = ZERO
    for i in range(SUPER):
        values[i] = min(max(x[at + i], -FAR), FAR)
        most = max(most, abs(values[i]))
        if w.size > 0 and objective != GT_MSE:
            weights[i] = w[at + i]
    power = power_of_two_of(most)
    for i in range(SUPER):
        values[i] *= ONE / power
    if objective == GT_REF:
        _weigh_as_reference(weights, values, w.size > 0)
    block.signs[:] = 0
    block.odd[:] = False
    for i in range(SUPER):
        j, k = i // SUB, i % SUB
        negative = bits_of(values[i]) >> 31
        block.signs[j, k // 8] |= negative << (k % 8)
        block.odd[j, k // 8] ^= negative == 1
        block.x[j, k], block.w[j, k] = abs(values[i]), weights[i]
    for j in range(SUBS):
        _measure(block, j)
    return power


@inline
def _measure(block: Block, j: int) -> None:
    """The size of a sub-block and the unit of its errors."""
    x, w = block.x[j], block.w[j]
    xx, total, most = ZERO, ZERO, ZERO
    for i in range(SUB):
        xx += (w[i] * x[i]) * x[i]
        total += w[i]
        most = max(most, x[i])
    block.size[j] = min(most, np.sqrt(xx / total) * OUTLIER)
    block.unit[j] = xx * UNIT
    per_unit = ONE / (xx * UNIT) if xx > NO_ENERGY else ZERO
    for i in range(SUB):
        block.root[j, i] = np.sqrt(w[i] * per_unit)


# ---- the scales ----


@inline
def _storable(d: Any, power: Any) -> Any:
    """The d nearest to d that can be stored."""
    v = d * power
    if not (v > LEAST_SCALE):
        v = LEAST_SCALE
    return f16_to_float(f16_from_scale(v)) * (ONE / power)


@inline
def _code_near(v: Any, offset: int) -> Any:
    """The code that comes nearest to a scale of v times d."""
    c = (((min(v, BEYOND) - ONE) * HALF + MAGIC) - MAGIC) + np.float32(offset)
    return min(max(c, ZERO), TOP)


@inline
def _scan(block: Block, j: int, b: Any, grid: Book) -> Any:
    b = min(b, block.size[j] * HALF)
    return scan(block.x[j], block.root[j], block.odd[j], b, grid) * block.unit[j]


@inline
def _first_scale(block: Block, j: int, grid: Book, p: Plan) -> Any:
    """(The real scale of least error, how fast the error rises beside it): the lowest of the parabolas."""
    size = block.size[j]
    before = least = after = b = last = older = ZERO
    for k in range(p.n):
        error = _scan(block, j, size * (p.first + np.float32(k) * p.step), grid)
        if k == 2 or (k > 2 and last < least):
            before, least, after = older, last, error
            b = size * (p.first + np.float32(k - 1) * p.step)
        older, last = last, error
    width = size * p.step
    bend = (before - least) + (after - least)
    shift = HALF * (before - after) / bend if bend > ZERO else ZERO
    shift = min(max(shift, -ONE), ONE)
    curve = (HALF * bend) / (width * width) if width * width > NARROW and bend > ZERO else ZERO
    own = b + shift * width
    chord = least / (own * own) if own * own > NARROW else ZERO  # without a scale the error is several times the least
    return own, max(curve, chord)


@inline
def _miss_at(own: Any, curve: Any, d: Any) -> Any:
    """The sum of the sub-blocks' parabolas at d, with the nearest codes."""
    e, inverse = np.empty(SUBS, np.float32), ONE / d
    for j in range(SUBS):
        miss = d * (TWO * _code_near(own[j] * inverse, 0) + ONE) - own[j]
        e[j] = (curve[j] * miss) * miss
    return sum_of_eight(e)


@inline
def _first_d(own: Any, curve: Any, p: Plan, power: Any) -> Any:
    """The d for which the parabolas have the least sum: near the one that gives the largest scale the code top, or far
    below it, where that scale belongs to weights that hardly matter."""
    base = ZERO
    for j in range(SUBS):
        base = max(base, own[j])
    base /= MOST_CODES
    best, best_d = ABOVE_ALL, ZERO
    for again in range(2):
        for k in range(p.d_n):
            d = _storable(base * (p.d_first + np.float32(k) * p.d_step), power)
            total = _miss_at(own, curve, d)
            if total < best:
                best, best_d = total, d
        if again:
            break
        lower, lower_d, below = best * MUCH_BETTER, best_d, base * FAR_BELOW
        for _ in range(BELOW_COUNT):
            d = _storable(below, power)
            total = _miss_at(own, curve, d)
            if total < lower:
                lower, lower_d = total, d
            below *= BELOW_STEP
        if lower_d == best_d:
            break
        best, best_d, base = lower, lower_d, lower_d
    return best_d


@inline
def _search(block: Block, grid: Book, own: Any, d: Any, low: int, width: int, exact: bool, c: Any) -> Any:
    """The best codes in a window around the own scales; their error."""
    errors = np.zeros(SUBS, np.float32)
    for j in range(SUBS):
        for k in range(width):
            code = _code_near(own[j] / d, low + k)
            b = d * (TWO * code + ONE)
            error = ZERO
            if exact:
                error = cost(block.x[j], block.w[j], block.odd[j], b, grid)
            elif width > 1:
                error = _scan(block, j, b, grid)
            if k == 0 or error < errors[j]:
                errors[j], c[j] = error, code
    return sum_of_eight(errors)


@inline
def _choose(block: Block, grid: Book, p: Plan, power: Any, c: Any) -> Any:
    """d; the codes into c."""
    own, curve, codes = np.empty(SUBS, np.float32), np.empty(SUBS, np.float32), np.empty(SUBS, np.float32)
    for j in range(SUBS):
        own[j], curve[j] = _first_scale(block, j, grid, p)
    center = _first_d(own, curve, p, power)
    best, best_d = _search(block, grid, own, center, p.low, p.width, p.starts > 0, c), center
    for k in range(p.starts):
        d = _storable(center * (p.start_first + np.float32(k) * p.start_step), power)
        error = _search(block, grid, own, d, p.start_low, p.start_width, True, codes)
        if error < best:
            best, best_d = error, d
            c[:] = codes
    return best_d


@inline
def _round(block: Block, grid: Book, d: Any, power: Any, c: Any, rows: Any, flips: Any) -> Any:
    """The best rows for these scales; then the least-squares d for these rows, in real size."""
    above, below = np.empty(SUBS, np.float32), np.empty(SUBS, np.float32)
    for j in range(SUBS):
        m = TWO * c[j] + ONE
        xl, ll = fit(block.x[j], block.w[j], block.odd[j], d * m, grid, rows[j], flips[j])
        above[j], below[j] = m * xl, (m * m) * ll
    sum_above, sum_below = sum_of_eight(above), sum_of_eight(below)
    return sum_above / sum_below * power if sum_below > ZERO else ZERO


# ---- the bytes ----


@inline
def _pack_iq3_s(block: Block, d: Any, c: Any, rows: Any, out: Any) -> None:
    out[:] = 0
    store_u16(out, 0, f16_from_scale(d))
    for j in range(SUBS):
        for g in range(GROUPS):
            out[2 + 8 * j + g] = np.uint8(rows[j, g] & 255)
            out[66 + j] |= np.uint8((rows[j, g] >> 8) << g)
        for g in range(4):
            out[74 + 4 * j + g] = np.uint8(block.signs[j, g])
        out[106 + j // 2] |= np.uint8(np.int64(c[j]) << (4 * (j % 2)))


@inline
def _pack_iq3_xxs(block: Block, d: Any, c: Any, rows: Any, flips: Any, out: Any) -> None:
    store_u16(out, 0, f16_from_scale(d))
    for j in range(SUBS):
        word = np.int64(c[j]) << 28
        for g in range(GROUPS):
            out[2 + 8 * j + g] = np.uint8(rows[j, g])
        for g in range(4):
            signs = block.signs[j, g] ^ (flips[j, 2 * g] | (flips[j, 2 * g + 1] << 4))
            word |= (signs & 127) << (7 * g)
        store_u16(out, 66 + 4 * j, word)
        store_u16(out, 68 + 4 * j, word >> 16)


@inline
def _encode(x: Any, w: Any, row: Any, objective: int, grid: Book, plan: Plan, block_bytes: int) -> None:
    per_weight = (SUBS, SUB)
    block = Block(
        np.empty(per_weight, np.float32),
        np.empty(per_weight, np.float32),
        np.empty(per_weight, np.float32),
        np.empty(SUBS, np.float32),
        np.empty(SUBS, np.float32),
        np.zeros((SUBS, 4), np.int64),
        np.zeros((SUBS, 4), np.bool_),
    )
    c = np.empty(SUBS, np.float32)
    rows, flips = np.zeros((SUBS, GROUPS), np.int64), np.zeros((SUBS, GROUPS), np.int64)
    for b in range(x.size // SUPER):
        power = _fill(block, x, w, b * SUPER, objective)
        d = _round(block, grid, _choose(block, grid, plan, power, c), power, c, rows, flips)
        out = row[b * block_bytes : (b + 1) * block_bytes]
        if grid.parity:
            _pack_iq3_xxs(block, d, c, rows, flips, out)
        else:
            _pack_iq3_s(block, d, c, rows, out)


@kernel
def encode_iq3_s(x: Any, w: Any, row: Any, objective: int, effort: int) -> None:
    _encode(x, w, row, objective, IQ3_S, IQ3_S_PLANS[effort], 110)


@kernel
def encode_iq3_xxs(x: Any, w: Any, row: Any, objective: int, effort: int) -> None:
    _encode(x, w, row, objective, IQ3_XXS, IQ3_XXS_PLANS[effort], 98)


ENCODERS: dict[str, Kernel] = {"iq3_s": encode_iq3_s, "iq3_xxs": encode_iq3_xxs}
