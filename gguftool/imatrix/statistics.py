"""What an importance matrix says about a model's activations: figures per tensor and per layer.

The sample of every figure of a tensor is the vector ``a`` of its mean squares, all matrices that some token reached end
to end: N values, one per input channel. Figures of tensors of different kinds do not compare (their inputs have
different widths and scales), which is why everything here is grouped by kind. ``docs/statistics.md`` has a paragraph on
each figure; in short:

* ``sum``, ``min``, ``max``, ``mean`` of a; ``std``, ``skewness``, ``kurtosis`` describe how the N channels differ.
* ``active_pct``: channels above 1e-5, in percent; ``active_rel_pct``: above 1e-4 of the median channel.
* ``entropy``: -sum p log2 p with p = a / sum(a), in bits; ``entropy_norm_pct``: percent of log2 N, its maximum.
  ``expert_entropy_*``: the same for every expert alone. ``routing_entropy_pct``: of the experts' shares of the tokens.
* ``zd_pct``: channels more than one std above the mean, in percent. Few of them stand out far; many mean no outliers.
* ``cossim``, ``pearson``, ``covariance``, ``l2``, ``gain``: a against the same tensor's a in the nearest earlier layer
  that has it in the same shape, ``distance`` layers before, over the matrices that tokens reached in both. Hybrid
  models have their kinds of layers at intervals, so the layer directly before is not always the one to compare with.
  Layers for next-token prediction are a sequence of their own.
* ``u_*``: the same of the signed means u, where the file has signed sums.
* ``duplicate_of``: the first tensor of the layer that sees the same input.

What has no value is NaN: a cosine in the first layer, the entropy of zeros. It counts in no average. All sums are
float64. ``upstream`` has the definitions of llama-imatrix, and says how they differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gguftool.format.names import place_of
from gguftool.imatrix import duplicates, layers
from gguftool.imatrix.coverage import routing_entropy
from gguftool.imatrix.figures import LayerStatistics, Pair, TensorStatistics
from gguftool.imatrix.layers import layer_statistics
from gguftool.imatrix.moments import CoMoments, Moments, cojoined, comoments, joined, moments

__all__ = ["LayerStatistics", "Measurable", "TensorStatistics", "by_kind", "layer_statistics", "tensor_statistics"]

_NAN = math.nan
_Floats = npt.NDArray[np.float64]
_Counts = npt.NDArray[np.int64]
_ACTIVE = 1e-5
_ACTIVE_REL = 1e-4
#: A channel whose variance is below this share of its energy is called constant.
_CONSTANT = 1e-2
#: Values looked at together: small enough to stay in a core's cache.
_PIECE = 1 << 16


class Measurable(Protocol):
    """What statistics ask of an importance matrix."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def nextn_layers(self) -> int | None: ...
    def shape(self, name: str) -> tuple[int, int]: ...
    def counts(self, name: str) -> _Counts: ...
    def tokens(self, name: str) -> int | None: ...
    def mean_squares(self, name: str, matrix: int | None = None) -> _Floats: ...
    def signed_means(self, name: str) -> _Floats | None: ...


@dataclass(frozen=True, slots=True)
class _Values:
    """An entry's mean squares and signed means [n_mat, n_cols], and its counts [n_mat]."""

    a: _Floats
    u: _Floats | None
    counts: _Counts

    @property
    def reached(self) -> npt.NDArray[np.intp]:
        """Numbers of the matrices that tokens came to."""
        return np.flatnonzero(self.counts)


def tensor_statistics(imatrix: Measurable) -> list[TensorStatistics]:
    """Statistics of every entry, sorted by kind and layer, those outside of blocks last.

    Two entries are in memory at a time. Raises ImatrixError for values that are no sums of squares.
    """
    found: list[TensorStatistics] = []
    before: tuple[TensorStatistics, _Values] | None = None
    for bare in sorted(_bare_rows(imatrix), key=_chain):
        name = bare.name
        held = _Values(imatrix.mean_squares(name), imatrix.signed_means(name), imatrix.counts(name))
        row = _measured(bare, held)
        if before is not None and row.layer is not None and _chain(before[0])[:-1] == _chain(row)[:-1]:
            row = _compared(row, held, *before)
        found.append(row)
        before = row, held
    return sorted(duplicates.marked(imatrix, sorted(found, key=by_kind)), key=by_kind)


class Placed(Protocol):
    """A row that belongs to a tensor."""

    @property
    def name(self) -> str: ...
    @property
    def layer(self) -> int | None: ...
    @property
    def kind(self) -> str: ...


def by_kind(row: Placed) -> tuple[bool, str, int, str]:
    """The order in which rows that may be compared stand together, layer after layer."""
    return row.layer is None, row.kind, -1 if row.layer is None else row.layer, row.name


def _bare_rows(imatrix: Measurable) -> list[TensorStatistics]:
    rows = [_bare(imatrix, name) for name in imatrix.names]
    first = _first_nextn(rows, imatrix.nextn_layers)
    if first is None:
        return rows
    return [
        replace(row, mtp=row.layer - first)
        if row.stack == "blk" and row.layer is not None and row.layer >= first
        else row
        for row in rows
    ]


def _first_nextn(rows: Iterable[TensorStatistics], n_nextn: int | None) -> int | None:
    """The first layer for next-token prediction: of the last ones if the file counts them, or told by a name."""
    trunk = [row for row in rows if row.stack == "blk" and row.layer is not None]
    if n_nextn:
        return max(0, max((row.layer or 0 for row in trunk), default=0) + 1 - n_nextn)
    named = [row.layer for row in trunk if row.layer is not None and ".nextn." in row.name]
    return min(named, default=None)


def _bare(imatrix: Measurable, name: str) -> TensorStatistics:
    n_mat, n_cols = imatrix.shape(name)
    counts = imatrix.counts(name)
    stack, layer, kind = place_of(name)
    reached = int((counts > 0).sum())
    tokens, n = imatrix.tokens(name), reached * n_cols
    row = TensorStatistics(name, layer, kind, stack, n_mat, reached, n_cols, tokens, n)
    routing = routing_entropy(counts)[1] if tokens is not None else _NAN
    return replace(row, reached_pct=100.0 * reached / n_mat, routing_entropy_pct=routing)


def _chain(row: TensorStatistics) -> tuple[str, str, int, int, bool, int]:
    """Entries whose keys agree but for the last part are compared, in the order of the last part."""
    kind = row.kind if row.layer is not None else row.name
    return row.stack, kind, row.n_mat, row.n_cols, row.mtp is not None, -1 if row.layer is None else row.layer


def _measured(bare: TensorStatistics, held: _Values) -> TensorStatistics:
    rows = held.reached
    if not rows.size:
        return bare
    found, entropies, entropy, active = _first_walk(held.a, rows)
    above = sum(_count(x - found.mean > found.std) for x in _blocks(rows, held.a))
    row = replace(
        bare,
        sum=found.total,
        min=found.least,
        max=found.most,
        mean=found.mean,
        std=found.std,
        skewness=found.skewness,
        kurtosis=found.kurtosis,
        active_pct=100.0 * active / found.n,
        active_rel_pct=100.0 * _active_rel(held.a, rows, found) / found.n,
        entropy=entropy,
        entropy_norm_pct=100.0 * entropy / math.log2(found.n) if found.n > 1 else _NAN,
        zd_pct=100.0 * above / found.n,
    )
    known = entropies[~np.isnan(entropies)]
    if bare.n_mat > 1 and known.size:
        row = replace(
            row,
            expert_entropy_min=float(known.min()),
            expert_entropy_median=float(np.median(known)),
            expert_entropy_max=float(known.max()),
        )
    return row if held.u is None else _signed(row, held.a, held.u, held.counts, rows)


def _first_walk(a: _Floats, rows: npt.NDArray[np.intp]) -> tuple[Moments, _Floats, float, int]:
    """(moments, entropy of each matrix, entropy of all, channels above the threshold) over rows of [n_mat, n_cols]."""
    found, active = Moments(), 0
    totals, logs = [], []
    # A scale for the logarithms: entropies near 0 are differences of them.
    scale = max(float(a.max()), np.finfo(np.float64).tiny)
    for x in _blocks(rows, a):
        found = joined(found, moments(x))
        active += _count(x > _ACTIVE)
        totals.append(x.sum(axis=1))
        shares = x / scale
        logs.append(np.einsum("ij,ij->i", shares, np.log2(np.maximum(shares, 1e-300))) * scale)
    total, log = np.concatenate(totals), np.concatenate(logs)
    with np.errstate(invalid="ignore", divide="ignore"):
        entropies = np.maximum(0.0, np.log2(total / scale) - log / total)
    entropies[total <= 0] = _NAN
    if found.total <= 0:
        return found, entropies, _NAN, active
    entropy = math.log2(found.total / scale) - float(log.sum()) / found.total
    return found, entropies, max(0.0, entropy), active


def _active_rel(a: _Floats, rows: npt.NDArray[np.intp], found: Moments) -> int:
    """Channels above the threshold, a share of the median. Half of all reach the median, so it is twice the mean at
    most, and where even that leaves no channel below the threshold it need not be looked for."""
    if found.least > 2 * found.mean * _ACTIVE_REL:
        return found.n
    threshold = _ACTIVE_REL * float(np.median(a[rows]))
    return sum(_count(x > threshold) for x in _blocks(rows, a))


def _signed(
    row: TensorStatistics, a: _Floats, u: _Floats, counts: _Counts, rows: npt.NDArray[np.intp]
) -> TensorStatistics:
    """The row with the figures of the signed means u of the same channels."""
    found = Moments()
    for y in _blocks(rows, u):
        found = joined(found, moments(y))
    row = replace(row, u_mean=found.mean, u_std=found.std, u_skewness=found.skewness, u_kurtosis=found.kurtosis)
    several = np.flatnonzero(counts > 1)
    if not several.size:
        return row
    variance, constant = 0.0, 0
    for x, y, n in zip(_blocks(several, a), _blocks(several, u), _blocks(several, counts, a), strict=True):
        spread = np.maximum(0.0, x - y * y) * (n / (n - 1))[:, None]
        variance += float(spread.sum())
        constant += _count((spread < _CONSTANT * x) & (x > 0))
    n_values = several.size * a.shape[1]
    return replace(row, variance=variance / n_values, constant_pct=100.0 * constant / n_values)


def _compared(row: TensorStatistics, c: _Values, before: TensorStatistics, p: _Values) -> TensorStatistics:
    """The row with its figures against its partner in an earlier layer."""
    assert row.layer is not None and before.layer is not None
    row = replace(row, distance=row.layer - before.layer)
    common = np.flatnonzero((c.counts > 0) & (p.counts > 0))
    if not common.size:
        return row
    pair = _pair(c, p, common)
    row = replace(
        row,
        pair=pair,
        cossim=layers.cosine([pair.energies]),
        pearson=layers.correlation([pair.energies]),
        covariance=layers.covariance([pair.energies]),
        l2=layers.distance([pair.energies]),
        gain=layers.gain([pair.energies]),
    )
    if pair.means is None:
        return row
    return replace(
        row,
        u_cossim=layers.cosine([pair.means]),
        u_pearson=layers.correlation([pair.means]),
        u_covariance=layers.covariance([pair.means]),
        u_l2=layers.distance([pair.means]),
        l2_noise=math.sqrt(pair.noise2),
    )


def _pair(c: _Values, p: _Values, common: npt.NDArray[np.intp]) -> Pair:
    energies = _cojoined(c.a, p.a, common)
    if c.u is None or p.u is None:
        return Pair(energies)
    noise2 = _noise2(c.a, c.u, c.counts, common) + _noise2(p.a, p.u, p.counts, common)
    return Pair(energies, _cojoined(c.u, p.u, common), noise2)


def _noise2(a: _Floats, u: _Floats, counts: _Counts, rows: npt.NDArray[np.intp]) -> float:
    """Sum over the channels of the variance of their means: that of a token, (e - u^2) C / (C - 1), over C tokens.

    One token tells no variance: its whole energy may be noise.
    """
    total = 0.0
    for x, y, n in zip(_blocks(rows, a), _blocks(rows, u), _blocks(rows, counts, a), strict=True):
        single = n == 1
        spreads = np.where(single, x.sum(axis=1), np.maximum(0.0, x - y * y).sum(axis=1))
        total += float((spreads / np.where(single, 1, n - 1)).sum())
    return total


def _cojoined(c: _Floats, p: _Floats, common: npt.NDArray[np.intp]) -> CoMoments:
    found = CoMoments()
    for x, y in zip(_blocks(common, c), _blocks(common, p), strict=True):
        found = cojoined(found, comoments(x, y))
    return found


def _count(true: npt.NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(true))


def _blocks(
    rows: npt.NDArray[np.intp], a: npt.NDArray[Any], like: npt.NDArray[Any] | None = None
) -> Iterator[npt.NDArray[Any]]:
    """The rows of [n_mat, n_cols], some at a time: about what a core's cache holds, of ``like`` if that is given."""
    step = max(1, _PIECE // (a if like is None else like).shape[1])
    for i in range(0, rows.size, step):
        yield a[i : i + step] if rows.size == len(a) else a[rows[i : i + step]]
