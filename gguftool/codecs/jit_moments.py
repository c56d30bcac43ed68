"""Sums over a run of weights, in one walk: powers of differences, extremes, zeros, and how many lie above a bound."""

from __future__ import annotations

from typing import Any

import numpy as np

from gguftool.codecs.jit_bits import kernel

#: Values whose mean is the point that differences are taken from. Any point near the mean does: n values among N cannot
#: lie further from the mean of all than sqrt(N / n) deviations of all.
_SAMPLE = 4096


@kernel
def power_sums(x: Any) -> Any:
    """(point, sums of (x - point)^k for k of 1 to 4, least, most, zeros) of float32 values, at least one; in float64.

    A NaN or an Inf among them makes the first sum one.
    """
    n = min(x.size, _SAMPLE)
    point = 0.0
    for i in range(n):
        point += x[i]
    point /= n
    s1 = s2 = s3 = s4 = 0.0
    least = most = x[0]
    zeros = 0
    for v in x:
        d = v - point
        e = d * d
        s1 += d
        s2 += e
        s3 += e * d
        s4 += e * e
        least = min(least, v)
        most = max(most, v)
        zeros += v == np.float32(0)
    return point, s1, s2, s3, s4, least, most, zeros


@kernel
def count_above(x: Any, one: float, other: float) -> Any:
    """How many of the values lie above each of two bounds."""
    above_one = above_other = 0
    for v in x:
        above_one += v > one
        above_other += v > other
    return above_one, above_other
