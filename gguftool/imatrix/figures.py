"""The rows of the tables of statistics. What each figure is and what it does not say: ``docs/statistics.md``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from gguftool.imatrix.moments import CoMoments

if TYPE_CHECKING:
    import pandas as pd

_NAN = math.nan


@dataclass(frozen=True, slots=True)
class Pair:
    """What a tensor and its partner in an earlier layer have in common, as sums that can be pooled over a layer.

    ``energies`` over the mean squares, ``means`` over the signed means if both have them; ``noise2`` is the squared L2
    that the sampling of tokens alone puts between those.
    """

    energies: CoMoments
    means: CoMoments | None = None
    noise2: float = _NAN


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """One entry. ``layer`` is None outside of blocks, ``kind`` the name without it, ``stack`` "blk", "enc.blk" ...

    ``n_mat`` matrices of ``n_cols`` channels, ``n_reached`` of them by any token, ``n`` values in the sample.
    ``tokens`` are summed over the matrices; None in the older format, which does not say. ``mtp`` numbers the layers
    for next-token prediction from 0; None elsewhere. Figures with ``u_``, ``l2_noise``, ``variance`` and
    ``constant_pct`` need signed sums in the file. ``pair`` is no figure; layers pool it.
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
    pearson: float = _NAN
    covariance: float = _NAN
    l2: float = _NAN
    gain: float = _NAN
    skewness: float = _NAN
    kurtosis: float = _NAN
    active_rel_pct: float = _NAN
    reached_pct: float = _NAN
    routing_entropy_pct: float = _NAN
    expert_entropy_min: float = _NAN
    expert_entropy_median: float = _NAN
    expert_entropy_max: float = _NAN
    u_mean: float = _NAN
    u_std: float = _NAN
    u_skewness: float = _NAN
    u_kurtosis: float = _NAN
    u_cossim: float = _NAN
    u_pearson: float = _NAN
    u_covariance: float = _NAN
    u_l2: float = _NAN
    l2_noise: float = _NAN
    variance: float = _NAN
    constant_pct: float = _NAN
    duplicate_of: str | None = None
    mtp: int | None = None
    pair: Pair | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """One layer. ``total`` sums its tensors' sums, ``mean`` is per channel (total / n).

    ``weighted_sum``, ``zd_pct`` and ``cossim`` are averages over tensors, weighted by their n, of those that have the
    figure; ``compared`` tensors have a cosine. ``weighted_sum`` is upstream's: it is quadratic in a tensor's width.
    These count every tensor. What follows counts every one of the layer's ``inputs`` once, though several tensors may
    see it: ``total_inputs``, the average ``entropy_norm_pct``, and pooled over all channels the comparison with the
    partners in earlier layers. ``gap``: layers missing from the file directly before this one.
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
    inputs: int = 0
    total_inputs: float = _NAN
    entropy_norm_pct: float = _NAN
    cossim_pooled: float = _NAN
    pearson_pooled: float = _NAN
    covariance: float = _NAN
    l2: float = _NAN
    gain: float = _NAN
    u_cossim_pooled: float = _NAN
    u_pearson_pooled: float = _NAN
    u_covariance: float = _NAN
    u_l2: float = _NAN
    l2_noise: float = _NAN
    gap: int = 0
    mtp: int | None = None


#: Columns of a tensor that are figures: what rows of one kind can be sorted by.
FIGURES = tuple(f.name for f in fields(TensorStatistics) if f.type == "float")


def columns(kind: type[Any]) -> tuple[str, ...]:
    """Names of the columns of a table of such rows, in order; of any dataclass."""
    return tuple(f.name for f in fields(kind) if f.name != "pair")


def values(row: Any) -> dict[str, Any]:
    """Column -> value of a row."""
    return {name: getattr(row, name) for name in columns(type(row))}


def frame(kind: type[Any], rows: Sequence[Any], file: str) -> pd.DataFrame:
    """Rows of one kind as a frame that names its file, for the titles of charts."""
    import pandas as pd

    found = pd.DataFrame([values(row) for row in rows], columns=list(columns(kind)))
    found.attrs["file"] = file
    return found
