"""The search for scale and minimum of one affine sub-block in numba: native/affine_search.h, which tells the method.

There sixteen sub-blocks are searched side by side; here one after the other, in the same order of operations, so the
bytes are the same. Every number is a float32; ``least`` and ``most`` treat equals and NaN as the vector operations do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gguftool.codecs.jit_bits import ZERO, bits_of, f16_from_scale, f16_to_float, float_of, inline

BLOCK = 32

ONE = np.float32(1)
TWO = np.float32(2)
MAGIC = np.float32(12582912)
TINY_WEIGHT = np.float32(2.0**-60)
TINY_SUM = np.float32(2.0**-100)
LEAST_SCALE = np.float32(2.0**-24)
HALF_LEAST = np.float32(2.0**-25)
LEAST_POWER = np.float32(2.0**-26)
FAR = np.float32(2.0**30)
FLAT = np.float32(2.0**-16)
PER_SUPER = np.float32(1 / 256)
PER_BLOCK = np.float32(1 / 32)


class Tile(NamedTuple):
    """Sub-blocks of one scale: y and w [n, rows]; the mean, sum w, sum w y^2, least and largest y of each [n]."""

    y: Any
    w: Any
    mean: Any
    weight: Any
    energy: Any
    low: Any
    high: Any
    levels: Any
    free: bool


class Fits(NamedTuple):
    """Real scales of sub-blocks and the sums they came from, [n] each."""

    s: Any
    c: Any
    l1: Any
    l2: Any
    yl: Any


# ---- arithmetic ----


@inline
def least(a: Any, b: Any) -> Any:
    return a if a < b else b


@inline
def most(a: Any, b: Any) -> Any:
    return a if a > b else b


@inline
def round_even(t: Any) -> Any:
    return (t + MAGIC) - MAGIC


@inline
def code_of(t: Any, levels: Any) -> Any:
    return round_even(least(most(t, ZERO), levels))


@inline
def inverse_of(s: Any) -> Any:
    if s == ZERO:
        return ZERO
    return ONE / s


@inline
def power_of_two(a: Any) -> Any:
    return most(float_of(bits_of(a) & 0x7F800000), LEAST_POWER)


@inline
def inverse_power(power: Any) -> Any:
    return float_of((254 << 23) - bits_of(power))


@inline
def round_to_f16(v: Any) -> Any:
    if v > ZERO:
        return most(f16_to_float(f16_from_scale(v)), LEAST_SCALE)
    return ZERO


@inline
def storable(v: Any, power: Any) -> Any:
    return round_to_f16(v * power) * (ONE / power)


@inline
def total_of(values: Any) -> Any:
    """The sum, halves added onto each other."""
    v = values.copy()
    n = v.size
    while n > 1:
        n //= 2
        for i in range(n):
            v[i] = v[i] + v[i + n]
    return v[0]


# ---- the tile ----


@inline
def new_tile(n: int, rows: int, levels: Any, free: bool) -> Any:
    return Tile(
        np.empty((n, rows), np.float32),
        np.empty((n, rows), np.float32),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
        levels,
        free,
    )


@inline
def new_fits(n: int) -> Any:
    return Fits(
        np.zeros(n, np.float32),
        np.zeros(n, np.float32),
        np.zeros(n, np.float32),
        np.zeros(n, np.float32),
        np.zeros(n, np.float32),
    )


@inline
def load_tile(t: Any, x: Any, w: Any) -> Any:
    """Fills the tile with x * 2^-k and the weights (ones if there are none); 2^k."""
    n, rows = t.y.shape
    largest = ZERO
    for j in range(n):
        low = x[j * rows]
        high = low
        for i in range(rows):
            low = least(low, x[j * rows + i])
            high = most(high, x[j * rows + i])
        t.low[j] = low
        t.high[j] = high
        largest = most(largest, least(most(high, -low), FAR))
    power = power_of_two(largest)
    inverse = ZERO if largest < HALF_LEAST else inverse_power(power)
    for j in range(n):
        for i in range(rows):
            t.y[j, i] = least(most(x[j * rows + i], -largest), largest) * inverse
            t.w[j, i] = w[j * rows + i] if w.size else ONE
        t.low[j] = most(t.low[j], -largest) * inverse
        t.high[j] = least(t.high[j], largest) * inverse
    return power


@inline
def weigh_by_root(t: Any, mean: Any, scale: Any) -> None:
    """Multiplies the weights by sqrt(mean + v^2), v = y * scale: the reference's choice."""
    n, rows = t.y.shape
    for j in range(n):
        for i in range(rows):
            v = t.y[j, i] * scale
            t.w[j, i] = most(t.w[j, i] * np.sqrt(mean + v * v), TINY_WEIGHT)


@inline
def weigh_super(t: Any, has_w: bool) -> None:
    """The reference's weights of a super-block."""
    n, rows = t.y.shape
    sums = np.zeros(n, np.float32)
    for j in range(n):
        for i in range(rows):
            sums[j] += t.y[j, i] * t.y[j, i]
    if has_w:
        weigh_by_root(t, total_of(sums) * (TWO * PER_SUPER if rows == BLOCK else PER_SUPER), ONE)
        return
    for j in range(n):
        root = np.sqrt(sums[j] * PER_BLOCK) if rows == BLOCK else ZERO
        for i in range(rows):
            t.w[j, i] = most(root + abs(t.y[j, i]), TINY_WEIGHT)


@inline
def center_tile(t: Any) -> None:
    """Takes the weighted means away."""
    n, rows = t.y.shape
    for j in range(n):
        weight = ZERO
        total = ZERO
        energy = ZERO
        for i in range(rows):
            weight += t.w[j, i]
            total += t.w[j, i] * t.y[j, i]
        mean = total / weight
        for i in range(rows):
            y = t.y[j, i] - mean
            energy += (t.w[j, i] * y) * y
            t.y[j, i] = y
        low = t.low[j] if t.free else least(t.low[j], ZERO)
        t.mean[j] = mean
        t.weight[j] = weight
        t.energy[j] = energy
        t.low[j] = low - mean
        t.high[j] = t.high[j] - mean


# ---- candidates of one sub-block ----


@inline
def moments_of(t: Any, j: int, a: Any, b: Any) -> Any:
    """L1, L2 and YL for the codes of y a + b."""
    l1 = ZERO
    l2 = ZERO
    yl = ZERO
    for i in range(t.y.shape[1]):
        y = t.y[j, i]
        code = code_of(y * a + b, t.levels)
        wl = t.w[j, i] * code
        l1 += wl
        l2 += wl * code
        yl += wl * y
    return l1, l2, yl


@inline
def error_with(t: Any, j: int, a: Any, b: Any, s: Any, c: Any) -> Any:
    """What the sub-block stored with (s, c) costs; a = 1 / s, b = c / s."""
    if s == ZERO:
        return t.energy[j] + (c * c) * t.weight[j]
    total = ZERO
    for i in range(t.y.shape[1]):
        v = t.y[j, i] * a + b
        e = v - code_of(v, t.levels)
        total += (t.w[j, i] * e) * e
    return total * (s * s)


@inline
def error_of(t: Any, j: int, s: Any, c: Any, l1: Any, l2: Any, yl: Any) -> Any:
    return (t.energy[j] + s * (s * l2 - TWO * (yl + c * l1))) + (c * c) * t.weight[j]


@inline
def fit_of(t: Any, j: int, l1: Any, l2: Any, yl: Any) -> Any:
    """s, c and error by least squares."""
    share = l1 / t.weight[j]
    spread = l2 - l1 * share
    flat = spread <= l2 * FLAT
    s = ZERO if flat else most(yl / spread, ZERO)
    c = s * share
    mean = t.mean[j]
    if not t.free and (flat or c < mean):
        s = most((yl + mean * l1) / most(l2, TINY_SUM), ZERO)
        c = mean
    return s, c, error_of(t, j, s, c, l1, l2, yl)


@inline
def search_fits(t: Any, p: Any, out: Any) -> None:
    for j in range(t.mean.size):
        mean = t.mean[j]
        scale = t.levels * inverse_of(t.high[j] - t.low[j])
        origin = -t.low[j] * scale
        out.s[j] = ZERO
        out.c[j] = ZERO if t.free else most(mean, ZERO)
        out.l1[j] = ZERO
        out.l2[j] = ZERO
        out.yl[j] = ZERO
        best = t.energy[j] + (out.c[j] * out.c[j]) * t.weight[j]
        for k in range(p.n_cuts + p.fits):
            if k < p.n_cuts:
                stretch = t.levels / ((t.levels - p.cuts[k, 0]) - p.cuts[k, 1])
                a = scale * stretch
                b = (origin - p.cuts[k, 0]) * stretch
            else:
                a = inverse_of(out.s[j])
                b = out.c[j] * a
            l1, l2, yl = moments_of(t, j, a, b)
            s, c, error = fit_of(t, j, l1, l2, yl)
            if error < best:
                best = error
                out.s[j] = s
                out.c[j] = c
                out.l1[j] = l1
                out.l2[j] = l2
                out.yl[j] = yl
