"""The search over rows of a codebook in numba: native/grid_search.h and grid_scan.h for one sub-block at a time.

A sub-block is 32 magnitudes x with weights w, stored in groups of four as rows of a codebook of eight levels times a
scale b. A row is two *points*, one for each half of it: 8 t1 + t0 for level indices t0, t1. ``odd`` says for each eight
weights whether one must have the wrong sign (IQ3_XXS). The order of operations is that of the C code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguftool.codecs import grids
from gguftool.codecs.jit_bits import ZERO, bits_of, float_of, inline
from gguftool.codecs.jit_symmetric_search import MAGIC

SUB = 32
GROUPS = 8
LEVELS = 8
POINTS = 64
MOST = 32767
FOUR = np.float32(4)
ABOVE_ALL = np.float32(2.0**120)


class Book(NamedTuple):
    """A codebook: first halves ``firsts[starts[s]:starts[s + 1]]`` go with second half s."""

    levels: Any
    starts: Any
    firsts: Any
    row_of: Any  # of the point second * 64 + first
    parity: bool


def book(name: str, unit: int, parity: bool) -> Book:
    """A grid of ``grids`` with its levels in units of the scale."""
    points = np.array(grids.points(name))
    row_of = np.zeros(POINTS * POINTS, np.int64)
    row_of[points] = np.arange(points.size)
    starts = np.searchsorted(points, POINTS * np.arange(POINTS + 1)).astype(np.uint16)
    levels = np.array(grids.GRIDS[name].levels, np.float32) / np.float32(unit)
    return Book(levels, starts, (points % POINTS).astype(np.uint16), row_of, parity)


@inline
def _least_firsts(starts: Any, firsts: Any, costs: Any, most: Any, least: Any) -> None:
    """For every second half the least cost of the first halves that go with it."""
    for s in range(POINTS):
        m = most
        for k in range(starts[s], starts[s + 1]):
            v = costs[firsts[k]]
            m = v if v < m else m
        least[s] = m


@inline
def _least_seconds(plain: Any, wrong: Any, m: Any, n: Any, most: Any, parity: bool) -> Any:
    """(The least cost of a row, the least with one wrong sign) from those of the first halves, m and n."""
    best = worse = most
    for s in range(POINTS):
        best = min(best, plain[s] + m[s])
        if parity:
            worse = min(worse, plain[s] + n[s], wrong[s] + m[s])
    return best, worse


# ---- the error at a scale in integers, quickly ----


@inline
def _rounded(v: Any) -> Any:
    """v >= 0 to the nearest integer, ties to even, at most 32767."""
    if v >= np.float32(MOST):
        return np.int32(MOST)
    return np.int32((v + MAGIC) - MAGIC)


@inline
def _scan_half(
    x: Any, root: Any, b: Any, levels: Any, at: int, cost: Any, more: Any, plain: Any, wrong: Any, parity: bool
) -> None:
    """The costs of all points of the half at ``at``, and with the cheaper weight's sign wrong; by way of two tables."""
    for i in range(2):
        y, step = root[at + i] * x[at + i], root[at + i] * b
        e = y - step * levels[0]
        for t in range(LEVELS):
            if t > 0:
                e -= step * (levels[t] - levels[t - 1])
            cost[i, t] = _rounded(e * e)
            if parity:
                more[i, t] = _rounded((y * step) * (FOUR * levels[t]))
    for t in range(LEVELS):
        for s in range(LEVELS):
            plain[t * LEVELS + s] = min(cost[0, s] + cost[1, t], MOST)
            if parity:
                wrong[t * LEVELS + s] = min(plain[t * LEVELS + s] + min(more[0, s], more[1, t]), MOST)


@inline
def scan(x: Any, root: Any, odd: Any, b: Any, grid: Book) -> Any:
    """The least error at the scale b in units, as a float32."""
    cost, more = np.empty((2, LEVELS), np.int32), np.empty((2, LEVELS), np.int32)
    plain, wrong = np.empty((2, POINTS), np.int32), np.empty((2, POINTS), np.int32)
    m, n = np.empty(POINTS, np.int32), np.empty(POINTS, np.int32)
    total: Any = 0
    before: Any = 0
    for g in range(GROUPS):
        for h in range(2):
            _scan_half(x, root, b, grid.levels, 4 * g + 2 * h, cost, more, plain[h], wrong[h], grid.parity)
        _least_firsts(grid.starts, grid.firsts, plain[0], np.int32(MOST), m)
        if grid.parity:
            _least_firsts(grid.starts, grid.firsts, wrong[0], np.int32(MOST), n)
        best, worse = _least_seconds(plain[1], wrong[1], m, n, np.int32(MOST), grid.parity)
        total += best
        if grid.parity and g % 2 == 1 and odd[g // 2]:
            total += min(before, worse - best)
        before = worse - best
    return np.float32(total)


# ---- the error at a scale in float32, and the rows ----


@inline
def _half_costs(x: Any, w: Any, b: Any, levels: Any, at: int, plain: Any, wrong: Any, parity: bool) -> None:
    cost, more = np.empty((2, LEVELS), np.float32), np.empty((2, LEVELS), np.float32)
    for i in range(2):
        v = (w[at + i] * x[at + i]) * FOUR
        for t in range(LEVELS):
            level = b * levels[t]
            e = x[at + i] - level
            cost[i, t] = (w[at + i] * e) * e
            more[i, t] = v * level
    for t in range(LEVELS):
        for s in range(LEVELS):
            plain[t * LEVELS + s] = cost[0, s] + cost[1, t]
            if parity:
                wrong[t * LEVELS + s] = plain[t * LEVELS + s] + min(more[0, s], more[1, t])


@inline
def _group_costs(
    x: Any, w: Any, b: Any, grid: Book, g: int, plain: Any, wrong: Any, m: Any, n: Any, numbered: bool
) -> Any:
    """(The least cost of a group, the least with one wrong sign); fills the tables, and m and n with _least_firsts.

    ``numbered`` puts each point's number into the lowest seven bits of its cost, as far as first halves go.
    """
    for h in range(2):
        _half_costs(x, w, b, grid.levels, 4 * g + 2 * h, plain[h], wrong[h], grid.parity)
    if numbered:
        for p in range(POINTS):
            plain[0, p] = float_of((bits_of(plain[0, p]) & ~127) | p)
            if grid.parity:
                wrong[0, p] = float_of((bits_of(wrong[0, p]) & ~127) | p)
    _least_firsts(grid.starts, grid.firsts, plain[0], ABOVE_ALL, m)
    if grid.parity:
        _least_firsts(grid.starts, grid.firsts, wrong[0], ABOVE_ALL, n)
    return _least_seconds(plain[1], wrong[1], m, n, ABOVE_ALL, grid.parity)


@inline
def cost(x: Any, w: Any, odd: Any, b: Any, grid: Book) -> Any:
    """The least error of the sub-block at the scale b."""
    plain, wrong = np.empty((2, POINTS), np.float32), np.empty((2, POINTS), np.float32)
    m, n = np.empty(POINTS, np.float32), np.empty(POINTS, np.float32)
    total, best, worse = ZERO, ZERO, ZERO
    for g in range(GROUPS):
        last_best, last_worse = best, worse
        best, worse = _group_costs(x, w, b, grid, g, plain, wrong, m, n, False)
        if not grid.parity:
            total += best
        elif g % 2 == 1:
            total += min(last_worse + best, last_best + worse) if odd[g // 2] else last_best + best
    return total


@inline
def fit(x: Any, w: Any, odd: Any, b: Any, grid: Book, rows: Any, flips: Any) -> Any:
    """The groups' best rows and wrong signs (as bits); (sum w x q, sum w q^2) of these."""
    plain, wrong = np.empty((GROUPS, 2, POINTS), np.float32), np.empty((GROUPS, 2, POINTS), np.float32)
    m, n = np.empty((GROUPS, POINTS), np.float32), np.empty((GROUPS, POINTS), np.float32)
    costs = np.empty((GROUPS, 2), np.float32)
    xl, ll = ZERO, ZERO
    for g in range(GROUPS):
        costs[g, 0], costs[g, 1] = _group_costs(x, w, b, grid, g, plain[g], wrong[g], m[g], n[g], True)
    for g in range(GROUPS):
        pair, h = g // 2 * 2, g % 2
        turn_first = costs[pair, 1] + costs[pair + 1, 0] < costs[pair, 0] + costs[pair + 1, 1]
        turned = grid.parity and odd[g // 2] and turn_first == (h == 0)
        first, second, half = _best_row(plain[g], wrong[g], m[g], n[g], turned)
        rows[g] = grid.row_of[second * POINTS + first]
        flips[g] = 0
        level = np.empty(4, np.float32)
        for i in range(4):
            point = first if i < 2 else second
            level[i] = grid.levels[point % LEVELS if i % 2 == 0 else point // LEVELS]
        if turned:
            i = 4 * g + 2 * half
            cheapest = 2 * half + int((w[i + 1] * x[i + 1]) * level[2 * half + 1] < (w[i] * x[i]) * level[2 * half])
            level[cheapest] = -level[cheapest]
            flips[g] = 1 << cheapest
        for i in range(4):
            wl = w[4 * g + i] * level[i]
            xl += wl * x[4 * g + i]
            ll += wl * level[i]
    return xl, ll


@inline
def _best_row(plain: Any, wrong: Any, m: Any, n: Any, turned: bool) -> Any:
    """The best row's points and, if one sign must be wrong, the half that has it; of equals the first."""
    best, first, second, half = ABOVE_ALL, ZERO, 0, 0
    for s in range(POINTS):
        value, point, where = plain[1, s] + m[s], m[s], 0
        if turned:
            value, point = plain[1, s] + n[s], n[s]
            if not (value < wrong[1, s] + m[s]):
                value, point, where = wrong[1, s] + m[s], m[s], 1
        if value < best:
            best, first, second, half = value, point, s, where
    return bits_of(first) & 127, second, half
