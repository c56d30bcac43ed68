"""What an importance matrix says about a model's activations: figures per tensor and per layer.

The sample of every figure of a tensor is the vector ``a`` of its mean squares, all matrices that some token reached end
to end: N values, one per input channel. Figures of tensors of different kinds do not compare (their inputs have
different widths and scales), which is why everything here is grouped by kind.

* ``sum``, ``min``, ``max``, ``mean`` of a; ``std`` is the deviation of the N channels themselves (divided by N), from a
  second pass over the differences from the mean.
* ``active_pct``: channels above 1e-5, in percent.
* ``entropy``: -sum p log2 p with p = a / sum(a), in bits; ``entropy_norm_pct``: percent of log2 N, its maximum.
* ``zd_pct``: channels more than one std above the mean, in percent. Few of them stand out far; many mean no outliers.
* ``cossim``: cosine between a and the same tensor's a in the nearest earlier layer that has it in the same shape,
  ``distance`` layers before, over the matrices that tokens reached in both. Hybrid models have their kinds of layers at
  intervals, so the layer directly before is not always the one to compare with.

What has no value is NaN: a cosine in the first layer, the entropy of zeros. It counts in no average. All sums are
float64. ``upstream`` has the definitions of llama-imatrix, and says how they differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gguftool.format.names import layer_of, tensor_kind

_NAN = math.nan
_Floats = npt.NDArray[np.float64]
_ACTIVE = 1e-5


class Measurable(Protocol):
    """What statistics ask of an importance matrix."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def shape(self, name: str) -> tuple[int, int]: ...
    def counts(self, name: str) -> npt.NDArray[np.int64]: ...
    def tokens(self, name: str) -> int | None: ...
    def mean_squares(self, name: str, matrix: int | None = None) -> _Floats: ...


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """One entry. ``layer`` is None outside of blocks, ``kind`` the name without it, ``stack`` "blk", "enc.blk" ...

    ``n_mat`` matrices of ``n_cols`` channels, ``n_reached`` of them by any token, ``n`` values in the sample.
    ``tokens`` are summed over the matrices; None in the older format, which does not say.
    """

    name: str
    layer: int | None
    kind: str
    stack: str
    n_mat: int
    n_reached: int
    n_cols: int
    tokens: int | None
    n: int
    sum: float = _NAN
    min: float = _NAN
    max: float = _NAN
    mean: float = _NAN
    std: float = _NAN
    active_pct: float = _NAN
    entropy: float = _NAN
    entropy_norm_pct: float = _NAN
    zd_pct: float = _NAN
    cossim: float = _NAN
    distance: int | None = None


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """One layer. ``total`` sums its tensors' sums, ``mean`` is per channel (total / n).

    ``weighted_sum``, ``zd_pct`` and ``cossim`` are averages over tensors, weighted by their n, of those that have the
    figure; ``compared`` tensors have a cosine. ``weighted_sum`` is upstream's: it is quadratic in a tensor's width.
    """

    stack: str
    layer: int
    tensors: int
    n: int
    total: float
    mean: float
    weighted_sum: float
    zd_pct: float
    cossim: float
    compared: int


def tensor_statistics(imatrix: Measurable) -> list[TensorStatistics]:
    """Statistics of every entry, sorted by kind and layer, those outside of blocks last.

    Two entries are in memory at a time. Raises ImatrixError for values that are no sums of squares.
    """
    found: list[TensorStatistics] = []
    before: TensorStatistics | None = None
    means: _Floats = np.empty((0, 0))
    for bare in sorted((_bare(imatrix, name) for name in imatrix.names), key=_chain):
        reached = imatrix.counts(bare.name) > 0
        mean_squares = imatrix.mean_squares(bare.name)
        row = _measured(bare, mean_squares[reached].ravel())
        if before is not None and _chain(before)[:-1] == _chain(row)[:-1] and row.layer is not None:
            assert before.layer is not None
            row = replace(row, cossim=_cosine(mean_squares, means), distance=row.layer - before.layer)
        found.append(row)
        before, means = row, mean_squares
    return sorted(found, key=by_kind)


def layer_statistics(tensors: Iterable[TensorStatistics]) -> list[LayerStatistics]:
    """Statistics of every layer that has tensors, by stack and layer; tensors outside of blocks are in none."""
    layers: dict[tuple[str, int], list[TensorStatistics]] = {}
    for row in tensors:
        if row.layer is not None:
            layers.setdefault((row.stack, row.layer), []).append(row)
    return [_layer(stack, layer, layers[stack, layer]) for stack, layer in sorted(layers)]


def by_kind(row: TensorStatistics) -> tuple[bool, str, int, str]:
    """The order in which rows that may be compared stand together, layer after layer."""
    return row.layer is None, row.kind, -1 if row.layer is None else row.layer, row.name


def _bare(imatrix: Measurable, name: str) -> TensorStatistics:
    n_mat, n_cols = imatrix.shape(name)
    counts = imatrix.counts(name)
    place = layer_of(name)
    stack, layer = place if place is not None else ("", None)
    kind = tensor_kind(name) if stack in ("", "blk") else f"{stack.removesuffix('blk')}{tensor_kind(name)}"
    reached = int((counts > 0).sum())
    tokens, n = imatrix.tokens(name), reached * n_cols
    return TensorStatistics(name, layer, kind, stack, n_mat, reached, n_cols, tokens, n)


def _chain(row: TensorStatistics) -> tuple[str, str, int, int, int]:
    """Entries whose keys agree but for the last part are compared, in the order of the last part."""
    kind = row.kind if row.layer is not None else row.name
    return row.stack, kind, row.n_mat, row.n_cols, -1 if row.layer is None else row.layer


def _measured(bare: TensorStatistics, a: _Floats) -> TensorStatistics:
    if not a.size:
        return bare
    total, mean, std = float(a.sum()), float(a.mean()), float(a.std())
    entropy = _entropy(a, total)
    return replace(
        bare,
        sum=total,
        min=float(a.min()),
        max=float(a.max()),
        mean=mean,
        std=std,
        active_pct=100.0 * np.count_nonzero(a > _ACTIVE) / a.size,
        entropy=entropy,
        entropy_norm_pct=100.0 * entropy / math.log2(a.size) if a.size > 1 else _NAN,
        zd_pct=100.0 * np.count_nonzero(a - mean > std) / a.size,
    )


def _entropy(a: _Floats, total: float) -> float:
    """Entropy in bits of the shares a / total; NaN for a sum of 0. A share of 0 adds nothing."""
    if total <= 0:
        return _NAN
    p = a / total
    p = p[p > 0]
    return max(0.0, -_dot(p, np.log2(p)))


def _cosine(a: _Floats, b: _Floats) -> float:
    """Cosine of two [n_mat, n_cols] over the matrices that are not all zero in either; NaN where one has no length.

    A matrix that no token reached is all zero, and one that is adds nothing to the product.
    """
    common = a.any(axis=1) & b.any(axis=1)
    if not common.all():
        a, b = a[common], b[common]
    a, b = a.ravel(), b.ravel()
    if not a.size:
        return _NAN
    a, b = a / a.max(), b / b.max()
    return min(1.0, _dot(a, b) / math.sqrt(_dot(a, a) * _dot(b, b)))


def _dot(a: _Floats, b: _Floats) -> float:
    """Sum of products; not by BLAS, whose threads cost more than they bring and change the last digits."""
    return float((a * b).sum())


def _layer(stack: str, layer: int, rows: Sequence[TensorStatistics]) -> LayerStatistics:
    n = sum(row.n for row in rows)
    total = sum(row.sum for row in rows if not math.isnan(row.sum))
    return LayerStatistics(
        stack,
        layer,
        len(rows),
        n,
        total if n else _NAN,
        total / n if n else _NAN,
        _average([(row.sum, row.n) for row in rows]),
        _average([(row.zd_pct, row.n) for row in rows]),
        _average([(row.cossim, row.n) for row in rows]),
        sum(not math.isnan(row.cossim) for row in rows),
    )


def _average(pairs: Iterable[tuple[float, int]]) -> float:
    """Mean of the values that are numbers, weighted; NaN for none."""
    held = [(value, weight) for value, weight in pairs if not math.isnan(value) and weight]
    weight = sum(w for _, w in held)
    return sum(v * w for v, w in held) / weight if weight else _NAN
