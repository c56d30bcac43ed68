"""Which tensors matter more than others of their kind, by one figure of an importance matrix.

Tensors of different kinds see inputs of different widths and scales, so they are never compared: every kind is ranked
for itself, and steps take the same share of each. Which end is the important one:

* ``act``: sum of the mean squared activations (per expert that tokens reached), high first. An error in a weight is
  multiplied with what goes in, so where more goes in, the same error does more harm; precision follows energy.
* ``entropy``: evenness of the channels, in percent of the greatest possible, low first. Where few channels carry most
  of the energy, few columns of weights carry most of the result, and scales of whole blocks serve them badly.
* ``zd``: percentage of channels more than one deviation above the mean, low first, as in "Layer-Wise Quantization"
  (arXiv 2406.17415), there of weights: few that stand out, stand out far.
* ``cossim``: likeness to the same tensor's input in the layer before, low first. A layer whose input looks like the
  last one's repeats its work; one that differs does something of its own. The first layer has no value.
* ``gain``: root mean square over that of the layer before, high first. What amplifies, amplifies errors too. The first
  layer has no value.
* ``kurtosis``: heaviness of the tails of the channels' energies, high first: outlier channels want finer scales.

None of them is more than a hint: an importance matrix has seen inputs of matrices, not what a model makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gguftool.errors import UsageError
from gguftool.format.names import layer_of, tensor_kind
from gguftool.imatrix.statistics import TensorStatistics


@dataclass(frozen=True, slots=True)
class Criterion:
    """A figure of ``TensorStatistics``, what to call it, and whether its high end is the important one."""

    field: str
    title: str
    high_first: bool


CRITERIA: Mapping[str, Criterion] = {
    "act": Criterion("sum", "sum of squared activations", True),
    "entropy": Criterion("entropy_norm_pct", "evenness of the channels, %", False),
    "zd": Criterion("zd_pct", "channels above one deviation, %", False),
    "cossim": Criterion("cossim", "likeness to the layer before", False),
    "gain": Criterion("gain", "gain over the layer before", True),
    "kurtosis": Criterion("kurtosis", "kurtosis of the channels", True),
}


@dataclass(frozen=True, slots=True)
class Ranked:
    """A tensor's place among those of its kind: 1 of ``of`` is the most important. NaN has no place: rank 0.

    ``entry`` is the entry of the importance matrix whose figure it is; another tensor's where that sees the same input.
    """

    name: str
    kind: str
    stack: str
    layer: int | None
    value: float
    rank: int
    of: int
    entry: str

    @property
    def share(self) -> float:
        """How far down the ranking it stands, 0 to 1: the same for the middle of a kind of any size."""
        return (self.rank - 0.5) / self.of


def ranking(
    entries: Mapping[str, str], rows: Iterable[TensorStatistics], by: str, *, reverse: bool = False
) -> list[Ranked]:
    """All tensors ranked within their kinds, by kind and rank, those without a value last.

    ``entries`` says which entry of the importance matrix stands for which tensor. UsageError for a figure that does not
    exist. Equal values stand in the order of layers.
    """
    criterion = criterion_of(by)
    figures = {row.name: row for row in rows}
    kinds: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for name, entry in entries.items():
        row = figures.get(entry)
        if row is not None:
            kinds.setdefault((row.stack, tensor_kind(name)), []).append((name, figure(row, criterion)))
    found: list[Ranked] = []
    for (stack, kind), members in sorted(kinds.items()):
        sign = -1.0 if criterion.high_first != reverse else 1.0
        valued = sorted((m for m in members if math.isfinite(m[1])), key=lambda m: (sign * m[1], layer_number(m[0])))
        bare = sorted((m for m in members if not math.isfinite(m[1])), key=lambda m: layer_number(m[0]))
        for rank, (name, value) in enumerate([*valued, *bare], 1):
            place = rank if rank <= len(valued) else 0
            layer = layer_number(name)
            layer_ = layer if layer >= 0 else None
            found.append(Ranked(name, kind, stack, layer_, value, place, len(valued), entries[name]))
    return found


def criterion_of(by: str) -> Criterion:
    """The criterion of that name; UsageError names them all."""
    if by not in CRITERIA:
        raise UsageError(f"'{by}' is no figure to rank tensors by: choose one of {', '.join(CRITERIA)}")
    return CRITERIA[by]


def figure(row: TensorStatistics, criterion: Criterion) -> float:
    """The criterion's figure of one entry; sums over experts are per expert reached, so that coverage is no merit."""
    value = float(getattr(row, criterion.field))
    return value / row.n_reached if criterion.field == "sum" and row.n_reached > 1 else value


def layer_number(name: str) -> int:
    """The layer of a tensor, -1 outside of blocks."""
    found = layer_of(name)
    return found[1] if found else -1


def without_value(ranked: Sequence[Ranked]) -> list[Ranked]:
    """Those that have no place because the figure is undefined for them."""
    return [r for r in ranked if r.rank == 0]
