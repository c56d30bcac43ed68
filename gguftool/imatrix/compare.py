"""How far two importance matrices of one model agree, tensor by tensor: to choose between calibration texts.

Of each matrix that tokens reached in both, the mean squares a and b are compared as distributions of importance over
the input channels; the figures of a tensor are the means over its matrices, because an encoder weighs the channels of a
matrix against each other and never one matrix against another.

* ``rank_corr``: Spearman's rank correlation, ties by their average rank. 1: the same order of channels.
* ``cosine`` of a and b. Few channels with large values decide it.
* ``tv``: total variation, sum |a / sum(a) - b / sum(b)| / 2. The share of importance that moved to other channels, from
  0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gguftool.format.names import place_of
from gguftool.imatrix.aliases import same_input

_NAN = math.nan
_Floats = npt.NDArray[np.float64]


class Comparable(Protocol):
    """What a comparison asks of an importance matrix."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def shape(self, name: str) -> tuple[int, int]: ...
    def counts(self, name: str) -> npt.NDArray[np.int64]: ...
    def mean_squares(self, name: str, matrix: int | None = None) -> _Floats: ...


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One entry of either file. ``n`` channels were compared, over all matrices reached in both.

    ``reached_a`` and ``reached_b`` count the matrices reached, None where the entry is missing; ``only_in`` is "a" or
    "b" then. The figures are NaN where nothing can be compared: one file only, other shapes, no matrix in common.
    """

    name: str
    layer: int | None
    kind: str
    stack: str
    n: int
    rank_corr: float
    cosine: float
    tv: float
    reached_a: int | None
    reached_b: int | None
    only_in: str


@dataclass(frozen=True, slots=True)
class KindDifference:
    """All tensors of one kind: averages over those compared, the least rank correlation and the largest distance."""

    kind: str
    tensors: int
    compared: int
    rank_corr: float
    rank_corr_min: float
    cosine: float
    cosine_min: float
    tv: float
    tv_max: float
    reached_a: int
    reached_b: int


def tensor_differences(a: Comparable, b: Comparable) -> list[TensorDifference]:
    """One row per entry of either file, sorted by kind and layer, those outside of blocks last.

    Entries of one file alone and of different shapes have no figures. Two entries of each are in memory at a time.
    """
    names = {**dict.fromkeys(a.names), **dict.fromkeys(b.names)}
    shared, other = frozenset(a.names), frozenset(b.names)
    rows: list[TensorDifference] = []
    last: tuple[_Floats, _Floats, tuple[int, float, float, float]] | None = None
    for name in sorted(names, key=_neighbours):
        figures = 0, _NAN, _NAN, _NAN
        if name in shared and name in other and a.shape(name) == b.shape(name):
            common = (a.counts(name) > 0) & (b.counts(name) > 0)
            pair = a.mean_squares(name)[common], b.mean_squares(name)[common]
            # Tensors of one input (q, k and v; gate and up) stand next to each other and are equal.
            if last is not None and np.array_equal(last[0], pair[0]) and np.array_equal(last[1], pair[1]):
                figures = last[2]
            else:
                figures = _figures(*pair)
            last = *pair, figures
        rows.append(_row(name, a if name in shared else None, b if name in other else None, figures))
    return sorted(rows, key=lambda row: (row.layer is None, row.kind, row.layer or 0, row.name))


def kind_differences(rows: Iterable[TensorDifference]) -> list[KindDifference]:
    """The rows of each kind in one, in their order."""
    kinds: dict[str, list[TensorDifference]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    return [_kind(kind, held) for kind, held in kinds.items()]


def overall_difference(rows: Iterable[TensorDifference]) -> KindDifference:
    """All rows in one, every tensor alike, under the kind "all"."""
    return _kind("all", list(rows))


def disagreeing(a: Comparable, b: Comparable) -> Mapping[str, tuple[tuple[int, int], tuple[int, int]]]:
    """Entries of both that have different shapes, with both shapes (n_mat, n_cols)."""
    both = frozenset(b.names)
    return {n: (a.shape(n), b.shape(n)) for n in a.names if n in both and a.shape(n) != b.shape(n)}


def rank_correlation(a: _Floats, b: _Floats) -> float:
    """Spearman's rank correlation of two vectors; NaN where all values of one are equal."""
    return _cosine(_ranks(a), _ranks(b))


def _figures(a: _Floats, b: _Floats) -> tuple[int, float, float, float]:
    """(channels, rank correlation, cosine, total variation) of [n_mat, n_cols], averaged over the matrices."""
    rows = [(rank_correlation(x, y), _cosine(x, y), _distance(x, y)) for x, y in zip(a, b, strict=True)]
    ranks, cosines, distances = zip(*rows, strict=True) if rows else ((), (), ())
    return a.size, _average(ranks), _average(cosines), _average(distances)


def _ranks(a: _Floats) -> _Floats:
    """Ranks, less their mean; equal values share the average of theirs."""
    order = np.argsort(a)
    ordered = a[order]
    places = np.arange(a.size, dtype=np.float64)
    if (ordered[1:] == ordered[:-1]).any():
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        lengths = np.diff(np.r_[starts, a.size])
        places = np.repeat(starts + (lengths - 1) / 2, lengths)
    ranks = np.empty(a.size)
    ranks[order] = places - (a.size - 1) / 2
    return ranks


def _cosine(a: _Floats, b: _Floats) -> float:
    norm = math.sqrt(_dot(a, a)) * math.sqrt(_dot(b, b))
    return min(1.0, max(-1.0, _dot(a, b) / norm)) if norm > 0 else _NAN


def _distance(a: _Floats, b: _Floats) -> float:
    """Total variation of the two as distributions; NaN where one is all zeros."""
    x, y = float(a.sum()), float(b.sum())
    return 0.5 * float(np.abs(a / x - b / y).sum()) if x > 0 and y > 0 else _NAN


def _dot(a: _Floats, b: _Floats) -> float:
    """Sum of products; not by BLAS, whose last digits depend on threads and machine."""
    return float((a * b).sum())


def _average(values: Sequence[float]) -> float:
    held = np.array(values, np.float64)
    held = held[~np.isnan(held)]
    return float(held.mean()) if held.size else _NAN


def _neighbours(name: str) -> tuple[str, int, str]:
    stack, layer, _ = place_of(name)
    return stack, -1 if layer is None else layer, min(same_input(name))


def _row(
    name: str, a: Comparable | None, b: Comparable | None, figures: tuple[int, float, float, float]
) -> TensorDifference:
    stack, layer, kind = place_of(name)
    reached = [None if side is None else int((side.counts(name) > 0).sum()) for side in (a, b)]
    only = "a" if b is None else "b" if a is None else ""
    return TensorDifference(name, layer, kind, stack, *figures, reached[0], reached[1], only)


def _kind(kind: str, rows: list[TensorDifference]) -> KindDifference:
    held = [row for row in rows if row.n]
    ranks, cosines, distances = ([getattr(row, f) for row in held] for f in ("rank_corr", "cosine", "tv"))
    return KindDifference(
        kind, len(rows), len(held), _average(ranks), _least(ranks), _average(cosines), _least(cosines),
        _average(distances), -_least([-distance for distance in distances]),
        sum(row.reached_a or 0 for row in rows), sum(row.reached_b or 0 for row in rows),
    )  # fmt: skip


def _least(values: list[float]) -> float:
    return min((v for v in values if not math.isnan(v)), default=_NAN)
