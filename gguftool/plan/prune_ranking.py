"""Which layers a model may do without, as far as the statistics of an importance matrix can tell: not very far.

What a layer contributes is the change that it makes to the residual stream, token by token (Block Influence). An
importance matrix holds sums over tokens of what went into each matrix, after normalisation; no function of these is the
change. Three of its figures go along with it. A layer counts as easy to miss when

* its inputs look like those of the layer before (pooled cosine),
* their energy is that of the layer before (gain near 1: |log gain|),
* the energy is spread evenly over the channels (entropy): no channel has a task of its own yet, or any more.

The score is the mean of a layer's places by the three, first place the most alike. Measured by removing single layers,
between the protected ones, of two small models and comparing with the KL divergence (Spearman): 0.66 over ten layers of
a dense model, 1.0 over the four of one with experts; by cosine alone 0.52 and 1.0, entropy 0.76 and 0.8, gain 0.58 and
1.0. The likeness to the *next* layer says nothing (-0.25 and -0.2), though it is what removing a layer makes of it; it
is shown, and not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from gguftool.errors import UsageError
from gguftool.format.names import ranges
from gguftool.imatrix.figures import LayerStatistics

_NAN = math.nan
#: Lists looked at when the best ones of several layers are sought; among the best few layers, all combinations are.
_MOST_LISTS = 5000


@dataclass(frozen=True, slots=True)
class RankedLayer:
    """A layer and what speaks for leaving it out. ``score`` is the mean place from 0 (easiest to miss) to 1; NaN if it
    has no figures. ``protected`` says why it is not proposed; empty if it may be.
    """

    layer: int
    cossim_before: float
    cossim_next: float
    gain: float
    entropy_norm_pct: float
    score: float = _NAN
    rank: int = 0
    protected: str = ""


def rank_layers(
    layers: Sequence[LayerStatistics], *, protect_first: int = 1, protect_last: int = 1, keep: Collection[int] = ()
) -> list[RankedLayer]:
    """The layers of the main stack, easiest to miss first, protected ones and those without figures last.

    ``protect_first`` and ``protect_last`` count layers at the ends, ``keep`` are numbers that are not to go. UsageError
    if there is no layer.
    """
    rows = [row for row in layers if row.stack == "blk" and row.mtp is None]
    if not rows:
        raise UsageError("no tensor of the importance matrix lies in a layer: there is nothing to prune")
    if protect_first < 0 or protect_last < 0:
        raise UsageError(f"protect {protect_first},{protect_last}: a number of layers is 0 or more")
    if missing := sorted(set(keep) - {row.layer for row in rows}):
        raise UsageError(f"layers to keep {ranges(missing)}: there are {ranges([row.layer for row in rows])}")
    after = {rows[i].layer: rows[i + 1] for i in range(len(rows) - 1)}
    found = [
        RankedLayer(
            row.layer,
            row.cossim_pooled,
            after[row.layer].cossim_pooled if row.layer in after else _NAN,
            row.gain,
            row.entropy_norm_pct,
            protected=_protection(i, len(rows), row, protect_first, protect_last, keep),
        )
        for i, row in enumerate(rows)
    ]
    return _ordered(found)


def prune_lists(
    ranked: Sequence[RankedLayer], count: int, allowed: Callable[[Sequence[int]], bool]
) -> Iterator[tuple[int, ...]]:
    """Lists of ``count`` layers that may go together, by the sum of their scores, best first; each list ascending.

    ``allowed`` says whether a model can do without a list (``plan.layers``). UsageError if too few layers are left.
    """
    free = [row for row in ranked if not row.protected and not math.isnan(row.score)]
    if count < 1 or count > len(free):
        way_out = f"prune from 1 to {len(free)}" if free else "none can be pruned"
        held = len(ranked) - len(free)
        raise UsageError(
            f"{count} layers are to go, but {len(free)} of {len(ranked)} may: {way_out}"
            + (", or protect fewer with --protect and --keep-layers" if held and count > 0 else "")
        )
    width = count
    while width < len(free) and math.comb(width + 1, count) <= _MOST_LISTS:
        width += 1
    scored = sorted(
        (sum(row.score for row in rows), sorted(row.layer for row in rows))
        for rows in combinations(free[:width], count)
    )
    for _, layers in scored:
        if allowed(layers):
            yield tuple(layers)


def _protection(index: int, n: int, row: LayerStatistics, first: int, last: int, keep: Collection[int]) -> str:
    if row.layer in keep:
        return "kept by request"
    if index < first:
        return "first"
    if index >= n - last:
        return "last"
    if row.gap:
        return "the layer before is missing"
    if any(math.isnan(figure) for figure in (row.cossim_pooled, row.gain, row.entropy_norm_pct)) or row.gain <= 0:
        return "no figures"
    return ""


def _ordered(rows: Sequence[RankedLayer]) -> list[RankedLayer]:
    free = [row for row in rows if not row.protected]
    places = [_places([key(row) for row in free]) for key in _KEYS]
    scored = [replace(row, score=sum(p[i] for p in places) / len(places)) for i, row in enumerate(free)]
    best = sorted(scored, key=lambda row: (row.score, row.layer))
    return [replace(row, rank=i) for i, row in enumerate(best, 1)] + [row for row in rows if row.protected]


_KEYS: tuple[Callable[[RankedLayer], float], ...] = (
    lambda row: -row.cossim_before,
    lambda row: abs(math.log(row.gain)),
    lambda row: -row.entropy_norm_pct,
)


def _places(values: Sequence[float]) -> list[float]:
    """Each value's place among the values, from 0 for the least to 1; equal values share the mean of theirs."""
    top = max(1, len(values) - 1)
    return [(sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2) / top for value in values]
