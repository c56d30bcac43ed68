"""What the calibration text reached of every tensor: matrices (experts), and how many tokens came to each.

An expert that no token reached has no importances, and one that a handful reached has poor ones. ``routing_entropy`` is
the entropy, in bits, of the shares of tokens that the matrices of one tensor got; in percent of log2 of their number,
100 means that all got the same. The older file format keeps which matrices were reached, not by how many tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gguftool.format.names import place_of

_NAN = math.nan


class Counted(Protocol):
    """What coverage asks of an importance matrix: no values."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def shape(self, name: str) -> tuple[int, int]: ...
    def counts(self, name: str) -> npt.NDArray[np.int64]: ...
    def tokens(self, name: str) -> int | None: ...


@dataclass(frozen=True, slots=True)
class TensorCoverage:
    """One entry: ``n_reached`` of ``n_mat`` matrices by any token, and tokens per matrix: least, median, most.

    ``tokens`` over all matrices, ``least``, ``median`` and ``most`` are None, the entropy NaN, where the file has no
    tokens per matrix; the entropy of a single matrix is NaN too. ``layer`` is None and ``stack`` "" outside of blocks.
    """

    name: str
    layer: int | None
    kind: str
    stack: str
    n_mat: int
    n_reached: int
    reached_pct: float
    tokens: int | None
    least: int | None
    median: float | None
    most: int | None
    routing_entropy: float
    routing_entropy_pct: float


@dataclass(frozen=True, slots=True)
class LayerCoverage:
    """One layer's tensors of several matrices: how many of them were reached, tokens of the least, median and most.

    ``experts`` are matrices of one tensor (the most that any has). ``routing_entropy_pct`` is the least of its tensors.
    """

    stack: str
    layer: int
    tensors: int
    experts: int
    matrices: int
    n_reached: int
    reached_pct: float
    least: int | None
    median: float | None
    most: int | None
    routing_entropy_pct: float


def tensor_coverage(imatrix: Counted) -> list[TensorCoverage]:
    """Coverage of every entry, sorted by layer and name, those outside of blocks last; no values are read."""
    return sorted((_covered(imatrix, name) for name in imatrix.names), key=by_layer)


def layer_coverage(tensors: Iterable[TensorCoverage]) -> list[LayerCoverage]:
    """Coverage of every layer with tensors of several matrices, by stack and layer."""
    layers: dict[tuple[str, int], list[TensorCoverage]] = {}
    for row in tensors:
        if row.layer is not None and row.n_mat > 1:
            layers.setdefault((row.stack, row.layer), []).append(row)
    return [_layer(stack, layer, layers[stack, layer]) for stack, layer in sorted(layers)]


def by_layer(row: TensorCoverage) -> tuple[bool, str, int, str]:
    """The order of the model: layer after layer, what is outside of blocks last."""
    return row.layer is None, row.stack, row.layer or 0, row.name


def routing_entropy(counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """(bits, percent of the most) of the shares of tokens; NaN for a single matrix and for no tokens."""
    total = int(counts.sum())
    if counts.size < 2 or not total:
        return _NAN, _NAN
    p = counts[counts > 0] / total
    bits = max(0.0, -float((p * np.log2(p)).sum()))
    return bits, 100.0 * bits / math.log2(counts.size)


def _covered(imatrix: Counted, name: str) -> TensorCoverage:
    counts, tokens = imatrix.counts(name), imatrix.tokens(name)
    stack, layer, kind = place_of(name)
    reached = int((counts > 0).sum())
    known = tokens is not None
    entropy, percent = routing_entropy(counts) if known else (_NAN, _NAN)
    return TensorCoverage(
        name, layer, kind, stack, counts.size, reached, 100.0 * reached / counts.size, tokens,
        int(counts.min()) if known else None,
        float(np.median(counts)) if known else None,
        int(counts.max()) if known else None,
        entropy, percent,
    )  # fmt: skip


def _layer(stack: str, layer: int, rows: list[TensorCoverage]) -> LayerCoverage:
    matrices, reached = sum(row.n_mat for row in rows), sum(row.n_reached for row in rows)
    least = [row.least for row in rows if row.least is not None]
    most = [row.most for row in rows if row.most is not None]
    median = [row.median for row in rows if row.median is not None]
    percents = [row.routing_entropy_pct for row in rows if not math.isnan(row.routing_entropy_pct)]
    return LayerCoverage(
        stack, layer, len(rows), max(row.n_mat for row in rows), matrices, reached, 100.0 * reached / matrices,
        min(least, default=None), float(np.median(median)) if median else None, max(most, default=None),
        min(percents, default=_NAN),
    )  # fmt: skip
