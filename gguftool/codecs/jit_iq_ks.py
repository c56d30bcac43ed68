"""IQ4_KSS and IQ4_KS in numba; native/iq_ks.c and iq_ks_search.h tell layouts, method and figures.

There sixteen blocks are searched side by side; here one after the other, in the same order of operations. Every number
is a float32; ``sides`` are the four ways to read a positive scale: as it is and negative, each with both tables.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gguftool.codecs.jit_bits import ZERO, Kernel, bits_of, inline, kernel, store_u16
from gguftool.codecs.jit_ik import VALUES_4
from gguftool.codecs.jit_symmetric_search import GT_MSE, GT_REF, HOPELESS, LANES, MAGIC, ONE, TINY_WEIGHT, sum16

BLOCK = 32
SUPER = 256
END = np.float32(113)
SHIFT = np.float32(4)
MOST_STEPS = np.float32(127)
FARTHEST = np.float32(175)
HALF = np.float32(0.5)
TWO = np.float32(2)

VALUES = np.array(VALUES_4, np.float32)
MIDDLES = (VALUES[1:] + VALUES[:-1]) * HALF

#: Codes with an even number of bits set, and with an odd one; the middles between their levels.
PARITIES = np.array([[q for q in range(16) if bin(q).count("1") % 2 == odd] for odd in (0, 1)])
PARITY_MIDDLES = (VALUES[PARITIES][:, 1:] + VALUES[PARITIES][:, :-1]) * HALF

PARITY_CELL = np.float32(24)


def _parity_cells() -> Any:
    """By parity, the middle of each cell's two levels and half of their distance, in cells: [2, 2, 16].

    A cell has the threshold that lies in it for the base table, or for the shifted one; else a single level.
    """
    cells = np.zeros((2, 2, 16), np.float32)
    for odd, levels in enumerate(VALUES[PARITIES]):
        for k in range(-8, 8):
            middles = PARITY_MIDDLES[odd]
            inside = (middles > 24 * k - 12 - 4) & (middles < 24 * k + 12)
            i = int(inside.argmax()) if inside.any() else int(np.searchsorted(middles, 24 * k))
            low, high = levels[i], levels[i + 1 if inside.any() else i]
            cells[odd, :, k & 15] = (low + high) * HALF, (high - low) * HALF
    return cells / PARITY_CELL


PARITY_CELLS = _parity_cells()


class Plan(NamedTuple):
    """How far a search goes; native/iq_ks.c says what the numbers mean."""

    first: tuple[np.float32, np.float32, np.float32]
    starts: int
    from_start: np.float32
    step_start: np.float32
    settles: int
    settle: np.float32


def _plan(first: tuple[float, float, int], starts: tuple[int, float, float], settles: int, settle: int) -> Plan:
    f = np.float32
    return Plan((f(first[0]), f(first[1]), f(first[2])), starts[0], f(starts[1]), f(starts[2]), settles, f(settle))


# By effort (fast, default, best), for both types.
PLANS = (
    _plan((0.75, 1.2, 0), (0, 0, 0), 0, 0),
    _plan((0.68, 1.3, 1), (4, 0.87, 0.035), 1, 2),
    _plan((0.66, 1.6, 2), (32, 0.8, 0.015), 4, 4),
)


# ---- a row: values scaled by a power of two, and their weights ----


@inline
def _scale_row(x: Any, tile: Any) -> Any:
    """Fills the tile; the largest magnitude in it, and the power of two that undoes the scaling."""
    largest = ZERO
    for v in x:
        largest = max(largest, abs(v))
    largest = min(largest, np.float32(2.0**126))
    exponent = max(math.frexp(largest)[1] - 1, -126) if largest > ZERO else -126
    power = np.float32(math.ldexp(1.0, exponent))
    inverse = ONE / power
    largest *= inverse
    for i in range(x.size):
        tile[i] = min(max(x[i] * inverse, -largest), largest)
    return largest, power


@inline
def _weigh(tile: Any, w: Any, objective: int, weights: Any) -> None:
    """The importance; for the reference's objective times the root of 2 mean(x^2) + x^2, or x^2 without one."""
    has_w = w.size > 0 and objective != GT_MSE
    for at in range(0, tile.size, SUPER):
        p = np.zeros(8, np.float32)
        for i in range(SUPER):
            p[i // BLOCK] += tile[at + i] * tile[at + i]
        total = ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]))
        twice_mean = total * np.float32(2 / SUPER)
        for i in range(at, at + SUPER):
            weights[i] = w[i] if has_w else ONE
            if objective == GT_REF:
                square = tile[i] * tile[i]
                weights[i] = max(weights[i] * np.sqrt(twice_mean + square) if has_w else square, TINY_WEIGHT)


# ---- the errors of a block at one scale, for all four sides ----


@inline
def _parity_error(x: Any, w: Any, inverse: Any, side: int) -> Any:
    """sum w (t - l)^2 in cells, where an odd number of odd codes costs the cheapest change of parity."""
    unit, error = inverse * (ONE / PARITY_CELL), ZERO
    for k in range(0, 16, 2):
        price, odd = HOPELESS, False
        for i in (k, k + 16, k + 1, k + 17):
            u = x[i] * unit
            if side >= 2:
                u = -u
            cell = np.int64((u + MAGIC) - MAGIC) & 15
            v = u - SHIFT / PARITY_CELL if side % 2 else u
            e = abs(v - PARITY_CELLS[0, 0, cell]) - PARITY_CELLS[0, 1, cell]
            f = abs(v - PARITY_CELLS[1, 0, cell]) - PARITY_CELLS[1, 1, cell]
            e, f = e * e, f * f
            change = w[i] * (e - f)
            error += w[i] * min(e, f)
            odd ^= change < ZERO  # an even number of these has the parity of the codes
            price = min(price, abs(change))
        if odd:
            error += price
    return error


@inline
def _plain_error(x: Any, w: Any, inverse: Any, side: int) -> Any:
    """The same without parities, in units of the codebook."""
    error = ZERO
    for i in range(BLOCK):
        t = x[i] * inverse
        if side >= 2:
            t = -t
        if side % 2:
            t -= SHIFT
        rest = t - VALUES[_nearest(t, MIDDLES)]
        error += w[i] * (rest * rest)
    return error


# ---- rounding with given scales ----


@inline
def _nearest(t: Any, middles: Any) -> Any:
    """The number of the nearest level, of two as near the upper."""
    low, high = 0, middles.size
    while low < high:
        at = (low + high) // 2
        if t >= middles[at]:
            low = at + 1
        else:
            high = at
    return low


@inline
def _round_quadruple(t: Any, w: Any, codes: Any) -> None:
    """The best codes of four elements among those of even parity together."""
    price, flipped, parity = HOPELESS, 0, False
    other = np.empty(4, np.int64)
    for i in range(4):
        even = PARITIES[0, _nearest(t[i], PARITY_MIDDLES[0])]
        odd = PARITIES[1, _nearest(t[i], PARITY_MIDDLES[1])]
        e, f = t[i] - VALUES[even], t[i] - VALUES[odd]
        change = w[i] * (f * f - e * e)
        codes[i], other[i] = (odd, even) if change < ZERO else (even, odd)
        parity ^= change < ZERO
        if abs(change) < price:
            price, flipped = abs(change), i
    if parity:
        codes[flipped] = other[flipped]


@inline
def _scale_of(byte: int) -> Any:
    return np.float32((byte & 254) - 127)


@inline
def _round_block(x: Any, w: Any, d: Any, byte: int, parity: bool, codes: Any) -> Any:
    """Fills the codes of a block; sum w x l and sum w l^2 with the entries l that they stand for."""
    inverse, shift = ONE / (d * _scale_of(byte)), np.float32(byte & 1) * SHIFT
    t, four, weights = np.empty(4, np.float32), np.empty(4, np.int64), np.empty(4, np.float32)
    for i in range(BLOCK):
        codes[i] = _nearest(x[i] * inverse - shift, MIDDLES)
    if parity:
        for k in range(0, 16, 2):
            at = (k, k + 16, k + 1, k + 17)
            for i in range(4):
                t[i], weights[i] = x[at[i]] * inverse - shift, w[at[i]]
            _round_quadruple(t, weights, four)
            for i in range(4):
                codes[at[i]] = four[i]
    xl, ll = ZERO, ZERO
    for n in range(BLOCK):
        i = n // 4 * 2 + (0, 16, 1, 17)[n % 4] if parity else n
        entry = VALUES[codes[i]] + shift
        xl += (w[i] * x[i]) * entry
        ll += (w[i] * entry) * entry
    return xl, ll


# ---- choosing the scales ----


@inline
def _round(v: Any) -> Any:
    return (v + MAGIC) - MAGIC


@inline
def _odd_above(v: Any) -> Any:
    return TWO * _round(v * HALF) + ONE


@inline
def _window(x: Any, d: Any, given: Any, first: Any, more: Any) -> Any:
    """The least and the largest scale to try: around the natural one, or around the given one if that is not 0."""
    largest = ZERO
    for v in x:
        largest = max(largest, abs(v))
    if given > ZERO:
        middle = _odd_above(min(given, TWO * MOST_STEPS) - ONE)
        low = max(middle - TWO * more, _odd_above(min(largest * (ONE / FARTHEST) / d, MOST_STEPS)))
        high = middle + TWO * more
    else:
        natural = largest * (ONE / END) / d
        low = _odd_above(min(natural * first[0], MOST_STEPS))
        high = (TWO * _round(min(natural * first[1], TWO * MOST_STEPS) * HALF) - ONE) + TWO * first[2]
    low = min(max(low, ONE), MOST_STEPS)
    limit = FARTHEST / largest if largest > ZERO else np.float32(np.inf)
    return low, max(min(max(high, ONE), MOST_STEPS), low), limit


@inline
def _search_byte(x: Any, w: Any, d: Any, given: Any, first: Any, more: Any, parity: bool) -> Any:
    """The best byte S of a block at d."""
    s, high, limit = _window(x, d, given, first, more)
    best, found = HOPELESS, np.int64(0)
    while s <= high:
        inverse = min(ONE / (d * s), limit)
        for side in range(4):
            error = _parity_error(x, w, inverse, side) if parity else _plain_error(x, w, inverse, side)
            if error * (s * s) < best:
                best = error * (s * s)
                found = 127 + (side & 1) + (np.int64(s) if side < 2 else -np.int64(s))
        s += TWO
    return found


@inline
def _choose_bytes(tile: Any, weights: Any, d: Any, plan: Any, given_d: Any, given: Any, out: Any, parity: bool) -> Any:
    """Fills ``out`` with every block's byte S at d, near ``given`` unless that is empty.

    The least-squares d for the codes found (0: none), and by how much that lowers the error of zeros.
    """
    above, below = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    codes = np.empty(BLOCK, np.int64)
    for b in range(out.size):
        x, w = tile[b * BLOCK : b * BLOCK + BLOCK], weights[b * BLOCK : b * BLOCK + BLOCK]
        around = abs(_scale_of(given[b])) * (given_d / d) if given.size else ZERO
        out[b] = _search_byte(x, w, d, around, plan.first, plan.settle, parity)
        s = _scale_of(out[b])
        xl, ll = _round_block(x, w, d, out[b], parity, codes)
        above[b % LANES] += s * xl
        below[b % LANES] += (s * s) * ll
    xl = sum16(above)
    fit = xl / sum16(below)
    return (fit if fit > d * np.float32(2.0**-40) else ZERO), fit * xl


@inline
def _storable(d: Any, power: Any) -> Any:
    """As it is stored, in units of the tile."""
    return d * power * (ONE / power)


@inline
def _choose_scales(tile: Any, weights: Any, largest: Any, power: Any, plan: Any, out: Any, parity: bool) -> Any:
    """d, 0 if zeros are best; the bytes S go to ``out``."""
    first = _storable(largest * (ONE / MOST_STEPS) / END, power)
    if not first > ZERO:
        return ZERO
    given, now = np.empty(out.size, np.int64), np.empty(out.size, np.int64)
    fit, best = _choose_bytes(tile, weights, first, plan, first, given[:0], given, parity)
    out[:] = given
    for k in range(plan.starts):
        d = _storable(first * (plan.from_start + np.float32(k) * plan.step_start), power)
        if d > ZERO:
            its_fit, gain = _choose_bytes(tile, weights, d, plan, first, given, now, parity)
            if gain > best:
                fit, best = its_fit, gain
                out[:] = now
    d = _storable(fit, power)
    for _ in range(plan.settles):
        if d > ZERO:
            given[:] = out
            fit, best = _choose_bytes(tile, weights, d, plan, d, given, out, parity)
            d = _storable(fit, power)
    return d


# ---- bytes ----


@inline
def _pack_words(q: Any, byte: int, out: Any) -> None:
    """Eight words: the inverse Gray code of four codes each, and a bit of S."""
    for k in range(8):
        v = q[2 * k] | (q[2 * k + 16] << 4) | (q[2 * k + 1] << 8) | (q[2 * k + 17] << 12)
        v ^= v >> 1
        v ^= v >> 2
        v ^= v >> 4
        v ^= v >> 8
        store_u16(out, 2 * k, v | ((byte >> k) & 1))


@inline
def _encode(x: Any, w: Any, out: Any, objective: int, effort: int, parity: bool) -> None:
    tile, weights = np.empty(x.size, np.float32), np.empty(x.size, np.float32)
    chosen, codes = np.empty(x.size // BLOCK, np.int64), np.empty(BLOCK, np.int64)
    largest, power = _scale_row(x, tile)
    _weigh(tile, w, objective, weights)
    d = _choose_scales(tile, weights, largest, power, PLANS[effort], chosen, parity)
    out[:] = 0
    if not d > ZERO:
        return
    bits = bits_of(d * power)
    store_u16(out, 0, bits & 0xFFFF)
    store_u16(out, 2, bits >> 16)
    for b in range(chosen.size):
        at = slice(b * BLOCK, b * BLOCK + BLOCK)
        _round_block(tile[at], weights[at], d, chosen[b], parity, codes)
        if parity:
            _pack_words(codes, chosen[b], out[4 + 16 * b : 20 + 16 * b])
        else:
            block = out[4 + 136 * (b // 8) : 140 + 136 * (b // 8)]
            block[b % 8] = chosen[b]
            for i in range(16):
                block[8 + b % 8 * 16 + i] = codes[i] | (codes[i + 16] << 4)


@kernel
def encode_iq4_kss(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    _encode(x, w, out, objective, effort, True)


@kernel
def encode_iq4_ks(x: Any, w: Any, out: Any, objective: int, effort: int) -> None:
    _encode(x, w, out, objective, effort, False)


ENCODERS: dict[str, Kernel] = {"iq4_kss": encode_iq4_kss, "iq4_ks": encode_iq4_ks}
