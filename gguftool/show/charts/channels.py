"""How importance is distributed over the channels of tensors, and which channels stand out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gguftool.errors import UsageError
from gguftool.format.names import layer_of, place_of
from gguftool.show.charts.heat import BESIDE, map_width
from gguftool.show.charts.labels import Mark, number
from gguftool.show.charts.page import (
    COLOURS,
    INK,
    MARKERS,
    SMALL,
    Chart,
    figure_of,
    heading,
    layer_ticks,
    log_ticks,
    plain_number,
    stack,
    styled,
    widest,
    width_of,
)
from gguftool.show.charts.table import MOST_KINDS, Grid, joined

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gguftool.imatrix.file import Imatrix

_PANEL = 1.7
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: Outliers kept of one tensor, and channels that are traced through the layers.
_MOST, _TRACED = 200, 5
_NOTE = "Bars: middle half and 90 % of the channels. Dots: outliers, above Q3 (Q3/Q1)³."


@dataclass(frozen=True, slots=True)
class Spread:
    """The positive mean squares of a tensor's channels: quantiles, and the outliers as (matrix, channel, value).

    Outliers are far out in the sense of Tukey's box plots, on the logarithms: three times the distance of the quartiles
    above the upper one. ``n_far`` counts them all, ``n_zero`` the channels at 0.
    """

    name: str
    n_mat: int
    n: int
    n_zero: int
    quantiles: tuple[float, ...]
    fence: float
    n_far: int
    far: tuple[tuple[int, int, float], ...]


def spread(imatrix: Imatrix, name: str) -> Spread:
    """The distribution of one entry's importances over the channels of all matrices that a token reached."""
    values = imatrix.mean_squares(name)
    reached, n_mat = np.flatnonzero(imatrix.counts(name) > 0), len(values)
    if len(reached) < len(values):
        values = values[reached]
    held = np.sort(values, axis=None)
    n_zero = int(np.searchsorted(held, 0, side="right"))
    held = held[n_zero:]
    if not held.size:
        return Spread(name, n_mat, values.size, n_zero, (np.nan,) * 5, np.nan, 0, ())
    quantiles = tuple(float(q) for q in held[np.rint(np.array(_QUANTILES) * (held.size - 1)).astype(int)])
    with np.errstate(over="ignore"):
        fence = float(quantiles[3] * np.float64(quantiles[3] / quantiles[1]) ** 3)
    n_far = held.size - int(np.searchsorted(held, fence, side="right"))
    far: list[tuple[int, int, float]] = []
    if n_far:
        least = max(fence, float(held[-min(n_far, _MOST)]))
        for matrix, column in np.argwhere((values >= least) & (values > fence)):
            place = int(reached[matrix]) if n_mat > 1 else -1
            far.append((place, int(column), float(values[matrix, column])))
    far.sort(key=lambda one: (-one[2], one[0], one[1]))
    return Spread(name, n_mat, values.size, n_zero, quantiles, fence, n_far, tuple(far[:_MOST]))


@styled
def channels(imatrix: Imatrix, which: str | Sequence[str] | None = None, *, title: str | None = None) -> Chart:
    """The distribution of channel importances, on a logarithmic scale, outliers marked and numbered.

    ``which`` is a kind ("ffn_down"), for a panel over its layers; the name of an entry, for all its channels in order
    beside their histogram; names; or None for all kinds in layers. Channels that stand out in many layers are traced in
    colour. Kinds that see the same input share a panel. UsageError for what is not in the file.
    """
    imatrix = imatrix.with_experts(imatrix.inferred_experts())
    names = _chosen(imatrix, which)
    if len(names) == 1:
        return _one(imatrix, names[0], title)
    panels = _panels(imatrix, names)
    layers = sorted({layer for held in panels.values() for layer in held})
    traced = {kind: _recurrent(held) for kind, held in panels.items()}
    keys = [_key_text(channel, n) for found in traced.values() for channel, n in found.items()]
    chart, axes = stack(
        imatrix.path.name if title is None else title,
        [_PANEL] * len(panels),
        width=map_width(len(layers)),
        left=0.65,
        right=0.45 + widest(keys, SMALL) if keys else BESIDE,
        head=0.3,
        note=_NOTE,
    )
    for i, (kind, held) in enumerate(panels.items()):
        _panel(axes[i], held, layers, traced[kind])
        heading(axes[i], f"{kind}: mean square of the channels{_experts_note(held.values())}", width_of(axes[i]) + 0.1)
    return chart


def _chosen(imatrix: Imatrix, which: str | Sequence[str] | None) -> list[str]:
    """Names of the entries meant, those without any value left out."""
    names = [name for name in imatrix.names if (imatrix.counts(name) > 0).any()]
    in_layers = [name for name in names if layer_of(name) is not None]
    if which is None:
        wanted = in_layers
    elif isinstance(which, str):
        wanted = [which] if which in names else [name for name in in_layers if place_of(name)[2] == which]
        if not wanted:
            kinds = ", ".join(sorted({place_of(name)[2] for name in names}))
            raise UsageError(f"'{which}' is neither a tensor nor a kind that has values: {kinds}")
    else:
        wanted = [name for name in which if name in names]
        wanted = wanted if len(wanted) == 1 else [name for name in wanted if layer_of(name) is not None]
    if not wanted:
        raise UsageError("none of these tensors lies in a layer and has values: name one of them to draw its channels")
    return wanted


def _panels(imatrix: Imatrix, names: Sequence[str]) -> dict[str, dict[int, Spread]]:
    """Label -> layer -> spread; kinds whose spreads agree in every layer are one."""
    if len({place_of(name)[2] for name in names}) > MOST_KINDS:
        raise UsageError("too many kinds of tensors for a chart: choose some of the tensors")
    by_kind: dict[str, dict[int, Spread]] = {}
    for name in names:
        _, layer, kind = place_of(name)
        assert layer is not None
        by_kind.setdefault(kind, {})[layer] = spread(imatrix, name)
    merged: dict[tuple[Any, ...], list[str]] = {}
    for kind in sorted(by_kind):
        proof = tuple((at, one.n, one.quantiles, one.far) for at, one in sorted(by_kind[kind].items()))
        merged.setdefault(proof, []).append(kind)
    return {joined(kinds): by_kind[kinds[0]] for kinds in merged.values()}


def _recurrent(held: dict[int, Spread]) -> dict[tuple[int, int], int]:
    """Channels that are outliers in three layers and a quarter of them: those found most often, with their number."""
    found = Counter((matrix, column) for one in held.values() for matrix, column, _ in one.far)
    often = [(n, key) for key, n in found.items() if n >= max(3, len(held) / 4)]
    return {key: n for n, key in sorted(often, key=lambda one: (-one[0], one[1]))[:_TRACED]}


def _key_text(channel: tuple[int, int], n: int) -> str:
    return f"channel {_channel_text(channel)}, {n} layers"


def _channel_text(channel: tuple[int, int]) -> str:
    """ "7:512" for a channel of an expert, "512" for one of a tensor of one matrix, whose number is -1."""
    return f"{channel[0]}:{channel[1]}" if channel[0] >= 0 else f"{channel[1]}"


def _experts_note(held: Iterable[Spread]) -> str:
    return " (outliers as expert:channel)" if any(one.n_mat > 1 and one.far for one in held) else ""


def _panel(axes: Axes, held: dict[int, Spread], layers: list[int], traced: dict[tuple[int, int], int]) -> None:
    place = {layer: i for i, layer in enumerate(layers)}
    at = np.array([place[layer] for layer in held], float)
    q = np.array([one.quantiles for one in held.values()])
    across = width_of(axes) * 72 / len(layers)
    axes.set_yscale("log")
    axes.vlines(at, q[:, 0], q[:, 4], color="#9DB7C9", linewidth=min(2.0, 0.15 * across))
    axes.vlines(at, q[:, 1], q[:, 3], color=COLOURS[0], linewidth=min(7.0, 0.5 * across))
    axes.scatter(at, q[:, 2], s=min(36.0, (0.5 * across) ** 2), marker="_", color="white", linewidth=1.2, zorder=3)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    _limits(axes, q, [value for one in held.values() for *_, value in one.far])
    layer_ticks(axes, layers)
    log_ticks(axes)
    axes.set_axisbelow(True)
    for i, channel in enumerate(traced):
        points = [(place[at], v) for at, one in held.items() for m, c, v in one.far if (m, c) == channel]
        style: dict[str, Any] = {"color": COLOURS[1 + i], "marker": MARKERS[i], "markersize": 3, "linewidth": 0.6}
        label = _key_text(channel, traced[channel])
        axes.plot(*zip(*sorted(points), strict=True), label=label, zorder=4, **style)
    rest = [
        Mark(place[at], value, _channel_text((m, c)), value / one.fence)
        for at, one in held.items()
        for m, c, value in one.far
        if (m, c) not in traced
    ]
    axes.plot([mark.x for mark in rest], [mark.y for mark in rest], ".", color=INK, markersize=3, zorder=4)
    number(axes, rest)
    if traced:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0.2, handlelength=1.6, labelspacing=0.35)


def _one(imatrix: Imatrix, name: str, title: str | None) -> Chart:
    """Every channel of one entry, in order, beside their histogram."""
    one = spread(imatrix, name)
    values = imatrix.mean_squares(name)[imatrix.counts(name) > 0]
    chart, (axes,) = stack(
        f"{imatrix.path.name}: {name}" if title is None else title,
        [2.7],
        width=6.6,
        left=0.65,
        right=1.2,
        head=0.3,
        foot=0.45,
    )
    axes.set_yscale("log")
    axes.set_xlim(-0.5 - 0.01 * values.shape[1], values.shape[1] * 1.01 - 0.5)
    _limits(axes, values, [])
    log_ticks(axes)
    axes.set_axisbelow(True)
    axes.set_xlabel("channel")
    _points(axes, values, one)
    for height, dashes in ((one.quantiles[2], "-"), (one.fence, (0, (4, 2)))):
        if axes.get_ylim()[0] < height < axes.get_ylim()[1]:
            axes.axhline(height, color=INK, linewidth=0.6, linestyle=dashes, zorder=3)
    marks = [Mark(c, v, _channel_text((m, c)), v) for m, c, v in one.far]
    axes.plot([m.x for m in marks], [m.y for m in marks], "o", color=COLOURS[1], markersize=3.2, zorder=4)
    number(axes, marks, most=30, clear=[one.fence])
    _histogram(axes, values)
    drawn = " (dashed)" if axes.get_ylim()[0] < one.fence < axes.get_ylim()[1] else ""
    far = f"{one.n_far:,} outlier{'' if one.n_far == 1 else 's'} above {plain_number(one.fence)}{drawn}"
    zero = f", {one.n_zero:,} at 0 not drawn" if one.n_zero else ""
    of = f"{values.shape[1]:,} channels" + (f" of {len(values)} experts" if one.n_mat > 1 else "")
    heading(axes, f"mean square of {of}{_experts_note([one])}: "
                  f"median {plain_number(one.quantiles[2])}, {far}{zero}", width_of(axes) + 1.1)  # fmt: skip
    return chart


def _points(axes: Axes, values: Grid, one: Spread) -> None:
    """A dot per channel; of several matrices the median, over a band from the least to the greatest."""
    at = np.arange(values.shape[1])
    shown = np.where(values > 0, values, np.nan)
    if len(values) > 1:
        filled = np.where(values > 0, values, values[values > 0].min(initial=np.inf))
        axes.fill_between(
            at, filled.min(axis=0), filled.max(axis=0), color="#C7DCEB", linewidth=0, step="mid", rasterized=True
        )
        shown = np.median(filled, axis=0, keepdims=True)
    size = 5.0 if len(at) <= 1024 else 3.4 if len(at) <= 8192 else 2.0
    axes.plot(at, shown[0], ".", color=COLOURS[0], markersize=size, markeredgewidth=0, rasterized=len(at) > 2048)


def _histogram(axes: Axes, values: Grid) -> None:
    across = figure_of(axes).get_size_inches()[0]
    place = axes.get_position()
    beside = figure_of(axes).add_axes((place.x1 + 0.06 / across, place.y0, 1.0 / across, place.height), sharey=axes)
    held = values[values > 0]
    edges = np.geomspace(*axes.get_ylim(), 61)
    counts, _ = np.histogram(held, edges)
    beside.stairs(counts, edges, orientation="horizontal", fill=True, color=COLOURS[4])
    beside.set_axis_off()


def _limits(axes: Axes, *drawn: npt.ArrayLike) -> None:
    """Limits around all positive values drawn, with room for numbers."""
    held = np.concatenate([np.ravel(np.asarray(values, float)) for values in drawn])
    held = held[np.isfinite(held) & (held > 0)]
    low, high = (float(held.min()), float(held.max())) if held.size else (0.1, 10.0)
    margin = max(1.3, (high / low) ** 0.07)
    axes.set_ylim(low / margin, high * margin)
