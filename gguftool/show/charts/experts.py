"""Which experts the calibration text reached, and how often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gguftool.errors import UsageError
from gguftool.format.names import place_of
from gguftool.show.charts.heat import Colouring, colour_bar
from gguftool.show.charts.page import (
    ABSENT,
    COLOURS,
    Chart,
    figure_of,
    heading,
    layer_ticks,
    plain_number,
    stack,
    styled,
    width_of,
)
from gguftool.show.charts.table import Grid, joined

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gguftool.imatrix.file import Imatrix

UNREACHED = COLOURS[1]
_BESIDE = 0.75
_Counts = dict[int, npt.NDArray[np.int64]]


@styled
def experts(imatrix: Imatrix, names: Sequence[str] | None = None, *, title: str | None = None) -> Chart:
    """A map of the tokens that every expert of every layer saw; those that none reached are marked, and counted beside.

    ``names`` are the entries drawn, by default all. Tensors whose experts saw the same tokens share a map, as gate, up
    and down do. The evenness beside it is the entropy of the routing in percent of its maximum. UsageError for a file
    without experts.
    """
    whole = imatrix.with_experts(imatrix.inferred_experts())
    groups = _groups(whole, whole.names if names is None else names)
    if not groups:
        raise UsageError(f"{imatrix.path.name}: no tensor has experts: there is no coverage to draw")
    known = imatrix.format == "gguf"
    maps = {kinds: _padded(list(held.values())) for kinds, held in groups.items()}
    unreached, of = (
        sum(int((m == 0).sum()) for m in maps.values()),
        sum(int(np.isfinite(m).sum()) for m in maps.values()),
    )
    missed = f"Orange: no token came by: {unreached:,} of {of:,} ({100 * unreached / of:.3g} %)."
    said = missed if unreached else f"All {of:,} were reached."
    chart, panels = stack(
        imatrix.path.name if title is None else title,
        [max(0.5, len(held) * _row(len(held))) for held in groups.values()],
        width=min(8.0, max(4.6, 0.16 * max(m.shape[1] for m in maps.values()))),
        left=0.6,
        right=0.15 + (_BESIDE + 0.2) * ((unreached > 0) + known) + (0.1 if known else 0),
        foot=0.45,
        note=said if known else f"{said} This format does not say how many tokens the others saw.",
    )
    for axes, (kinds, held) in zip(panels, groups.items(), strict=True):
        _draw(axes, kinds, list(held), maps[kinds], known)
        if unreached:
            _beside(axes, 0, (maps[kinds] == 0).sum(axis=1), "unreached", UNREACHED)
        if known:
            _beside(axes, int(unreached > 0), _evenness(maps[kinds]), "evenness, %", COLOURS[0])
    return chart


def _groups(imatrix: Imatrix, names: Sequence[str]) -> dict[str, _Counts]:
    """Kinds -> layer -> tokens per expert; kinds with the same counts everywhere are one."""
    by_kind: dict[str, _Counts] = {}
    for name in names:
        _, layer, kind = place_of(name)
        if layer is not None and imatrix.shape(name)[0] > 1:
            by_kind.setdefault(kind, {})[layer] = imatrix.counts(name)
    merged: dict[tuple[tuple[int, bytes], ...], list[str]] = {}
    for kind in sorted(by_kind):
        if "exps" not in kind and all(len(set(row.tolist())) == 1 for row in by_kind[kind].values()):
            continue  # the heads of one matrix, not experts
        merged.setdefault(tuple((at, row.tobytes()) for at, row in sorted(by_kind[kind].items())), []).append(kind)
    return {joined(kinds): dict(sorted(by_kind[kinds[0]].items())) for kinds in merged.values()}


def _row(n_layers: int) -> float:
    return min(0.24, max(0.095, 6.0 / n_layers))


def _draw(axes: Axes, kinds: str, layers: Sequence[int], tokens: Grid, known: bool) -> None:
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap, LogNorm

    positive = tokens[tokens > 0] if known else np.empty(0)
    low = max(1.0, float(np.quantile(positive, 0.005))) if positive.size else 1.0
    high = max(float(positive.max(initial=1.0)), 2 * low)
    shown = np.where(tokens > 0, tokens if known else math.sqrt(low * high), np.nan)
    blues = LinearSegmentedColormap.from_list("", ["#D9E9F4", "#56A0D0", "#0A3A66"])
    axes.set_facecolor(ABSENT)
    norm = LogNorm(low, high)
    image = axes.imshow(shown, aspect="auto", cmap=blues, norm=norm, interpolation="nearest")
    missed = np.where(tokens == 0, 0.0, np.nan)
    axes.imshow(missed, aspect="auto", cmap=ListedColormap([UNREACHED]), interpolation="nearest")
    axes.spines[:].set_visible(False)
    layer_ticks(axes, layers, label=False, vertical=True)
    layer_ticks(axes, range(tokens.shape[1]), label=False)
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    heading(axes, f"{kinds}: {'tokens per expert' if known else 'experts reached'}", width_of(axes) - 2.0 * known)
    if known:
        extend = "min" if low > positive.min(initial=np.inf) else "neither"
        colour_bar(axes, image, Colouring(shown, norm, "", extend))


def _padded(rows: Sequence[npt.NDArray[np.int64]]) -> Grid:
    """Tokens as [n_layers, n_experts], NaN where a layer has fewer experts than others."""
    found = np.full((len(rows), max(len(row) for row in rows)), np.nan)
    for i, row in enumerate(rows):
        found[i, : len(row)] = row
    return found


def _evenness(tokens: Grid) -> Grid:
    """Entropy of the shares of every row in percent of the greatest possible; NaN for a row without tokens."""
    shares = np.nan_to_num(tokens)
    total = shares.sum(axis=1, keepdims=True)
    shares = shares / np.where(total > 0, total, np.nan)
    entropy = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=1)
    found: Grid = 100 * entropy / np.log2(np.isfinite(tokens).sum(axis=1))
    return found


def _beside(axes: Axes, place: int, values: npt.NDArray[Any], title: str, colour: str) -> None:
    """A narrow chart of one value per row, to the right of the map."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    across = figure_of(axes).get_size_inches()[0]
    box = axes.get_position()
    left = box.x1 + (0.2 + place * (_BESIDE + 0.2)) / across
    beside = figure_of(axes).add_axes((left, box.y0, _BESIDE / across, box.height), sharey=axes)
    rows = np.arange(len(values))
    if colour == UNREACHED:
        beside.barh(rows, values, color=colour, height=0.8)
        beside.set_xlim(0, max(1.0, 1.05 * float(values.max())))
    else:
        beside.plot(values, rows, ".-", color=colour, markersize=3.5, linewidth=0.8)
    beside.xaxis.set_major_locator(MaxNLocator(2, integer=colour == UNREACHED))
    beside.xaxis.set_major_formatter(FuncFormatter(plain_number))
    beside.tick_params(axis="y", length=0, labelleft=False)
    beside.spines["left"].set_visible(False)
    beside.grid(axis="x")
    beside.set_axisbelow(True)
    heading(beside, title, _BESIDE + 0.15)
