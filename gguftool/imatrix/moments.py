"""Sums of powers of differences from a mean, taken piece by piece and joined exactly.

Raw moments lose everything when the mean is large against the deviation, and a second walk over a long vector costs a
second walk. So each piece is centred on its own mean, and pieces are joined by the formulas of Chan, Golub and LeVeque
(1979) and Pebay (2008), which have no cancellation of that kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float64]
#: Below this many roundings of the mean, a deviation is rounding.
_ROUNDINGS = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True, slots=True)
class Moments:
    """``n`` values: their sum and extremes, and sums of the 2nd, 3rd and 4th powers of differences from their mean.

    ``std``, ``skewness`` and ``kurtosis`` (excess over the normal distribution's 3) divide by n; NaN where undefined.
    """

    n: int = 0
    total: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else math.nan

    @property
    def std(self) -> float:
        return math.sqrt(self.m2 / self.n) if self.n else math.nan

    @property
    def skewness(self) -> float:
        return self.m3 / self.n / self.std**3 if self.std > _ROUNDINGS * abs(self.mean) else math.nan

    @property
    def kurtosis(self) -> float:
        return self.m4 / self.n / self.std**4 - 3.0 if self.std > _ROUNDINGS * abs(self.mean) else math.nan


@dataclass(frozen=True, slots=True)
class CoMoments:
    """Two vectors of ``n`` values: their sums, sums of squares and products about their means, and of (c - p)^2."""

    n: int = 0
    sum_c: float = 0.0
    sum_p: float = 0.0
    var_c: float = 0.0
    var_p: float = 0.0
    cov: float = 0.0
    distance2: float = 0.0

    @property
    def dot(self) -> float:
        """Sum of c * p."""
        return self.cov + self.sum_c * self.sum_p / self.n if self.n else 0.0

    @property
    def squares(self) -> tuple[float, float]:
        """Sums of c^2 and of p^2."""
        if not self.n:
            return 0.0, 0.0
        return self.var_c + self.sum_c**2 / self.n, self.var_p + self.sum_p**2 / self.n

    @property
    def variances(self) -> tuple[float, float]:
        """``var_c`` and ``var_p``, 0 where they are nothing but the rounding of a constant's mean."""
        pairs = ((self.var_c, self.sum_c), (self.var_p, self.sum_p))
        return tuple(v if v * self.n > (_ROUNDINGS * s) ** 2 else 0.0 for v, s in pairs)  # type: ignore[return-value]


def moments(values: _Floats) -> Moments:
    """Moments of a vector, centred on its own mean."""
    x = values.ravel()
    if not x.size:
        return Moments()
    total = float(x.sum())
    d = x - total / x.size
    d2 = d * d
    return Moments(x.size, total, float(x.min()), float(x.max()), _dot(d, d), _dot(d2, d), _dot(d2, d2))


def joined(a: Moments, b: Moments) -> Moments:
    """Moments of the values of both."""
    if not a.n or not b.n:
        return a if a.n else b
    n, d = a.n + b.n, b.mean - a.mean
    p, q = a.n / n, b.n / n
    m2 = a.m2 + b.m2 + d * d * p * b.n
    m3 = a.m3 + b.m3 + d**3 * p * b.n * (p - q) + 3 * d * (p * b.m2 - q * a.m2)
    m4 = a.m4 + b.m4 + d**4 * p * b.n * (p * p - p * q + q * q)
    m4 += 6 * d * d * (p * p * b.m2 + q * q * a.m2) + 4 * d * (p * b.m3 - q * a.m3)
    return Moments(n, a.total + b.total, min(a.least, b.least), max(a.most, b.most), m2, m3, m4)


def comoments(c: _Floats, p: _Floats) -> CoMoments:
    """Joint moments of two vectors of one length."""
    c, p = c.ravel(), p.ravel()
    if not c.size:
        return CoMoments()
    sum_c, sum_p = float(c.sum()), float(p.sum())
    dc, dp, between = c - sum_c / c.size, p - sum_p / p.size, c - p
    return CoMoments(c.size, sum_c, sum_p, _dot(dc, dc), _dot(dp, dp), _dot(dc, dp), _dot(between, between))


def cojoined(a: CoMoments, b: CoMoments) -> CoMoments:
    """Joint moments of the values of both."""
    if not a.n or not b.n:
        return a if a.n else b
    n = a.n + b.n
    d_c, d_p, w = b.sum_c / b.n - a.sum_c / a.n, b.sum_p / b.n - a.sum_p / a.n, a.n / n * b.n
    return CoMoments(
        n,
        a.sum_c + b.sum_c,
        a.sum_p + b.sum_p,
        a.var_c + b.var_c + d_c * d_c * w,
        a.var_p + b.var_p + d_p * d_p * w,
        a.cov + b.cov + d_c * d_p * w,
        a.distance2 + b.distance2,
    )


def ratio(product: float, squares: tuple[float, float]) -> float:
    """product / sqrt(squares), at most 1 either way: a cosine or a correlation.

    NaN if both squares are 0; 0 if one is, since something and nothing have nothing in common.
    """
    c, p = squares
    if c <= 0 or p <= 0:
        return math.nan if c <= 0 and p <= 0 else 0.0
    return max(-1.0, min(1.0, product / (math.sqrt(c) * math.sqrt(p))))


def _dot(a: _Floats, b: _Floats) -> float:
    """Sum of products; not by BLAS, whose threads cost more than they bring and change the last digits."""
    return float(np.einsum("i,i->", a, b))
