"""The statistics of ``llama-imatrix --show-statistics``, digit for digit: its definitions, its float32, its order.

What differs from ``statistics``, and why that is not the default:

* The cosine is taken of the *raw sums*, so that an expert weighs by how many tokens it got, and only with the layer
  directly before. Where there is nothing to compare with it is 0, and enters the average of its layer as 0.
* The deviation comes from sum(a^2)/N - mean^2 in float32, which is noise for a narrow distribution.
* The experts of a file of the older form are one vector, those that writers filled with 1 included.
* Order: by kind, and within a kind by falling sum.

Upstream adds float32 from left to right, and so does this: ``np.cumsum`` is that sum. A predecessor shorter than its
successor is read beyond its end by upstream; here it has the cosine 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

_Singles = npt.NDArray[np.float32]
_ZERO, _ONE, _ACTIVE = np.float32(0), np.float32(1), np.float32(1e-5)
_BLOCK = re.compile(r"blk\.(\d+)\.")
_DIGITS = re.compile(r"[+-]?\d+")


class Sums(Protocol):
    """What these statistics ask of an importance matrix."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def shape(self, name: str) -> tuple[int, int]: ...
    def counts(self, name: str) -> npt.NDArray[np.int64]: ...
    def raw_sums(self, name: str) -> _Singles: ...


@dataclass(frozen=True, slots=True)
class UpstreamTensor:
    """One line of the table. ``layer`` is text, "-" outside of blocks; ``active``, ``zd`` are shares, not percent."""

    name: str
    layer: str
    kind: str
    sum: float
    min: float
    max: float
    mean: float
    std: float
    active: float
    n: int
    entropy: float
    zd: float
    cossim: float = 0.0

    @property
    def entropy_norm_pct(self) -> float:
        """Percent of log2 n; NaN for a single channel."""
        return 100.0 * self.entropy / math.log2(self.n) if self.n > 1 else math.nan


@dataclass(frozen=True, slots=True)
class UpstreamLayer:
    """One line of the table of layers: averages weighted by numbers of channels, undefined cosines as 0."""

    layer: int
    sum: float
    zd: float
    cossim: float


def upstream_tensors(imatrix: Sums) -> tuple[list[UpstreamTensor], list[str]]:
    """The lines of the table in upstream's order, and the names of the entries without data, which it leaves out."""
    found, empty = [], []
    with np.errstate(all="ignore"):  # as in C: overflow gives infinity, 0/0 gives NaN
        for name in sorted(imatrix.names, key=lambda text: text.encode("utf-8", "surrogateescape")):
            sums, counts = imatrix.raw_sums(name), imatrix.counts(name)
            reached = counts > 0
            if not reached.any():
                empty.append(name)
                continue
            means = sums[reached] / counts[reached].astype(np.float32)[:, None]
            found.append(_tensor(name, means.ravel(), _cosine(imatrix, name, sums.ravel())))
    return sorted(found, key=lambda row: (row.kind.encode("utf-8", "surrogateescape"), -row.sum)), empty


def upstream_layers(tensors: Iterable[UpstreamTensor]) -> list[UpstreamLayer]:
    """The lines of the table of layers, from the lines of tensors in their order."""
    totals: dict[int, list[np.float32]] = {}
    weights: dict[int, int] = {}
    with np.errstate(all="ignore"):
        for row in tensors:
            layer = int(row.layer) if _DIGITS.fullmatch(row.layer) else -1
            if layer < 0:
                continue
            held = totals.setdefault(layer, [_ZERO] * 3)
            n = np.float32(row.n)
            for i, value in enumerate((row.sum, row.zd, row.cossim)):
                held[i] = held[i] + n * np.float32(value)
            weights[layer] = weights.get(layer, 0) + row.n
        return [
            UpstreamLayer(layer, *(float(value / np.float32(weights[layer])) for value in totals[layer]))
            for layer in sorted(totals)
        ]


def _tensor(name: str, a: _Singles, cossim: float) -> UpstreamTensor:
    n = np.float32(a.size)
    total = _sum(a)
    mean = total / n
    std = np.sqrt(np.maximum(_ZERO, _sum(a * a) / n - mean * mean))
    zd = np.count_nonzero((a - mean) / std > _ONE) / n if std > 0 else _ZERO
    layer, kind = _parsed(name)
    inactive = np.float32(np.count_nonzero(a <= _ACTIVE))
    return UpstreamTensor(
        name, layer, kind, float(total), float(a.min()), float(a.max()), float(mean), float(std),
        float(_ONE - inactive / n), a.size, _entropy(a, total), float(zd), cossim,
    )  # fmt: skip


def _entropy(a: _Singles, total: np.float32) -> float:
    if not total > 0:
        return 0.0
    p = a / total
    p = p[p > 0]
    return float(_sum(-(p * np.log2(p))))


def _sum(values: _Singles) -> np.float32:
    """Sum of float32 from left to right."""
    return np.float32(np.cumsum(values, dtype=np.float32)[-1]) if values.size else _ZERO


def _cosine(imatrix: Sums, name: str, sums: _Singles) -> float:
    block = _BLOCK.search(name)
    if block is None or int(block[1]) < 1:
        return 0.0
    before = f"{name[: block.start(1)]}{int(block[1]) - 1}{name[block.end(1) :]}"
    if before not in imatrix.names or math.prod(imatrix.shape(before)) < sums.size:
        return 0.0
    other = imatrix.raw_sums(before).ravel()[: sums.size]
    norms = np.sqrt(_sum(sums * sums)) * np.sqrt(_sum(other * other))
    return float(_sum(sums * other) / norms)


def _parsed(name: str) -> tuple[str, str]:
    """(layer, kind) of an entry's name: what follows ``blk``, what stands before ``weight``."""
    parts = name.split(".")
    layer = next((after for part, after in pairwise(parts) if part == "blk"), "-")
    kind = next((before for before, part in pairwise(parts) if part == "weight"), name)
    return layer, kind
