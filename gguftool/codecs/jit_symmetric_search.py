"""What the numba searches for symmetric blocks share: native/symmetric_search.h for one block at a time.

Every number is a float32. What looks like a detour (``e * (s * s)``, sums in sixteen parts) is the order of the C
code, so that the bytes are the same.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gguftool.codecs.jit_bits import ZERO, inline

LANES = 16

GT_REF = 1
GT_MSE = 2

ONE = np.float32(1)
MAGIC = np.float32(12582912)
TINY_WEIGHT = np.float32(2.0**-60)
LEAST_SCALE = np.float32(2.0**-24)
LARGEST_SCALE = np.float32(65504)
FAR = np.float32(2.0**30)
HOPELESS = np.float32(2.0**100)


class Spread(NamedTuple):
    """Candidate scales v * (start + k * step), k < n, with the sign of v or with both."""

    start: np.float32
    step: np.float32
    n: int
    both: bool


def spread(start: float, stop: float, count: int, both: bool) -> Spread:
    """n scales from start to stop, both included."""
    step = (np.float32(stop) - np.float32(start)) / np.float32(count - 1)
    return Spread(np.float32(start), np.float32(step), count, both)


NO_SPREAD = Spread(ZERO, ZERO, 0, False)


# ---- scales ----


@inline
def power_of_two_of(x: Any) -> Any:
    """2^k with k the exponent of x >= 0, but at least -26."""
    if x == ZERO:
        return np.float32(2.0**-26)
    return np.float32(math.ldexp(1.0, max(math.frexp(x)[1] - 1, -26)))


@inline
def round_to_f16(x: Any) -> Any:
    """The binary16 value nearest to x >= 0, neither zero nor infinite."""
    step = np.float32(math.ldexp(1.0, max(math.frexp(x)[1] - 11, -24)))
    if x > LARGEST_SCALE:
        return LARGEST_SCALE
    return min(max(((x / step + MAGIC) - MAGIC) * step, LEAST_SCALE), LARGEST_SCALE)


@inline
def storable(d: Any, power: Any) -> Any:
    return round_to_f16(d * power) * (ONE / power)


@inline
def inverse_of(s: Any) -> Any:
    return ZERO if s == ZERO else ONE / s


@inline
def sum16(p: Any) -> Any:
    a = np.empty(8, np.float32)
    for i in range(8):
        a[i] = p[i] + p[i + 8]
    for i in range(4):
        a[i] = a[i] + a[i + 4]
    return (a[0] + a[2]) + (a[1] + a[3])


# ---- one block at one scale ----


@inline
def code_of(t: Any, low: Any, high: Any) -> Any:
    """The nearest of the integers low .. high, ties to even."""
    return (min(max(t, low), high) + MAGIC) - MAGIC


@inline
def error_of(x: Any, w: Any, s: Any, low: Any, high: Any) -> Any:
    """sum w (x - s l)^2."""
    inverse, e = ONE / s, ZERO
    for i in range(x.size):
        t = x[i] * inverse
        rest = t - code_of(t, low, high)
        e += (w[i] * rest) * rest
    return e * (s * s)


@inline
def moments_of(x: Any, w: Any, inverse: Any, levels: Any) -> Any:
    """sum w x l and sum w l^2."""
    xl, ll = ZERO, ZERO
    for i in range(x.size):
        code = code_of(x[i] * inverse, -levels, levels - ONE)
        wl = w[i] * code
        xl += wl * x[i]
        ll += wl * code
    return xl, ll


@inline
def own_scale(x: Any, w: Any, inverse: Any, levels: Any) -> Any:
    """The least-squares scale of the codes at a scale."""
    xl, ll = moments_of(x, w, inverse, levels)
    return xl * inverse_of(ll)


@inline
def energy_of(x: Any, w: Any) -> Any:
    a = ZERO
    for i in range(x.size):
        a += (w[i] * x[i]) * x[i]
    return a


@inline
def largest_of(x: Any) -> Any:
    """max |x|, with the sign of the scale that puts this element on -N."""
    high, low = ZERO, ZERO
    for v in x:
        high = max(high, v)
        low = min(low, v)
    return -high if high > -low else -low


@inline
def search_spread(x: Any, w: Any, v: Any, levels: Any, plan: Any, best: Any) -> Any:
    """The best real scale around v if its error is below ``best``, else v; and the error."""
    found = v
    for k in range(plan.n):
        s = v * (plan.start + np.float32(k) * plan.step)
        e = error_of(x, w, s, -levels, levels - ONE)
        if e < best:
            best, found = e, s
        if plan.both:
            e = error_of(x, w, s, ONE - levels, levels)
            if e < best:
                best, found = e, -s
    return found, best


@inline
def round_codes(x: Any, s: Any, levels: Any, codes: Any) -> None:
    """Codes plus N for a given scale."""
    inverse = inverse_of(s)
    for i in range(x.size):
        codes[i] = np.uint8(np.int64(code_of(x[i] * inverse, -levels, levels - ONE) + levels))
