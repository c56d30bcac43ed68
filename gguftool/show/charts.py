"""Figures. Colours are told apart by colour-blind eyes and in grey; lines differ by marker as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gguftool.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gguftool.imatrix.statistics import TensorStatistics

#: Okabe and Ito's palette without its yellow, which is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP*"

_TITLES = {
    "sum": "sum of mean squares", "mean": "mean square per channel", "std": "deviation over channels",
    "min": "least mean square", "max": "greatest mean square", "active_pct": "active channels, %",
    "entropy": "entropy, bits", "entropy_norm_pct": "entropy, % of maximum",
    "zd_pct": "channels more than one std above the mean, %", "cossim": "cosine with the layer before",
}  # fmt: skip
_RELATIVE = ("sum", "mean", "std", "min", "max")
#: Where the colours of multiples end, so that one odd layer does not bleach the others.
_WIDEST = 10.0
_Grid = npt.NDArray[np.float64]


def imatrix_chart(tensors: Sequence[TensorStatistics], figure: str = "mean", title: str = "") -> Figure:
    """A map of one statistic over layers and kinds of tensors, above lines of ZD and cosine over the layers.

    Kinds that see the same input have equal figures and share a row. UsageError if no tensor lies in a layer.
    """
    from matplotlib.figure import Figure

    rows = [row for row in tensors if row.layer is not None]
    if not rows:
        raise UsageError("no tensor of the importance matrix lies in a layer: there is nothing to draw over layers")
    kinds = _kinds(rows)
    layers = sorted({row.layer for row in rows if row.layer is not None})
    width = min(24.0, max(9.0, 3.5 + 0.28 * len(layers)))
    chart = Figure(figsize=(width, 3.4 + 0.34 * len(kinds) + 5.2), layout="constrained")
    grid = chart.add_gridspec(3, 1, height_ratios=[1.2 + 0.34 * len(kinds), 2.6, 2.6])
    if title:
        chart.suptitle(title)
    _heat(chart, chart.add_subplot(grid[0]), _table(kinds, layers, figure), list(kinds), layers, figure)
    legend = None
    for place, name in ((1, "zd_pct"), (2, "cossim")):
        axes = chart.add_subplot(grid[place])
        _lines(axes, _table(kinds, layers, name), list(kinds), layers, _TITLES[name])
        legend = legend or axes.get_legend_handles_labels()
    assert legend is not None
    chart.legend(*legend, loc="outside lower center", ncols=min(4, len(kinds)), frameon=False, fontsize=8)
    return chart


def save(chart: Figure, path: str | Path) -> None:
    """Writes a figure in the format that the name's ending says; UsageError for an ending that is none."""
    known = set(chart.canvas.get_supported_filetypes())
    ending = Path(path).suffix.removeprefix(".").lower()
    if ending not in known:
        raise UsageError(f"'{path}': a chart's name ends in one of {', '.join(sorted(known))}")
    chart.savefig(path, dpi=130)


def _kinds(rows: Sequence[TensorStatistics]) -> dict[str, dict[int, TensorStatistics]]:
    """Label -> rows by layer; kinds whose figures agree in every layer are one, labelled with all their names."""
    by_kind: dict[str, dict[int, TensorStatistics]] = {}
    for row in rows:
        assert row.layer is not None
        by_kind.setdefault(row.kind, {})[row.layer] = row
    merged: list[tuple[list[str], dict[int, TensorStatistics]]] = []
    for kind, held in by_kind.items():
        same = next((names for names, other in merged if _same(held, other)), None)
        if same is None:
            merged.append(([kind], held))
        else:
            same.append(kind)
    return {", ".join(names): held for names, held in merged}


def _same(a: dict[int, TensorStatistics], b: dict[int, TensorStatistics]) -> bool:
    def near(x: float, y: float) -> bool:
        return math.isclose(x, y, rel_tol=1e-6) or (math.isnan(x) and math.isnan(y))

    return a.keys() == b.keys() and all(
        a[i].n == b[i].n and all(near(getattr(a[i], f), getattr(b[i], f)) for f in ("sum", "max", "std")) for i in a
    )


def _table(kinds: dict[str, dict[int, TensorStatistics]], layers: Sequence[int], figure: str) -> _Grid:
    """The figure as [n_kinds, n_layers], NaN where there is none."""
    return np.array(
        [[getattr(held[layer], figure) if layer in held else math.nan for layer in layers] for held in kinds.values()]
    )


def _heat(chart: Figure, axes: Axes, values: _Grid, kinds: list[str], layers: list[int], figure: str) -> None:
    """The map. Figures with a scale of their own (percent, cosine) are shown as they are; others, which do not compare
    between kinds, as multiples of their row's median.
    """
    from matplotlib.colors import LogNorm, Normalize

    title, labels, colours = _TITLES[figure], kinds, "viridis"
    scale: Normalize = Normalize()
    ends: Literal["neither", "both"] = "neither"
    with_scale = figure not in _RELATIVE
    if not with_scale:
        medians = [_median(row) for row in values]
        values = values / np.array([[median] for median in medians])
        values[values <= 0] = np.nan
        widest = max(1.25, math.exp(np.abs(np.log(values[np.isfinite(values)])).max(initial=0)))
        ends = "both" if widest > _WIDEST else ends
        widest = min(widest, _WIDEST)
        scale, colours = LogNorm(1 / widest, widest), "PuOr_r"
        labels = [f"{kind} ({median:.3g})" for kind, median in zip(kinds, medians, strict=True)]
        title = f"{title}, as a multiple of the row's median (in brackets)"
    image = axes.imshow(values, aspect="auto", cmap=colours, norm=scale, interpolation="nearest")
    axes.set_facecolor("#AAAAAA")  # no such tensor, or no value
    axes.set_yticks(range(len(kinds)), labels, fontsize=8)
    _layer_ticks(axes, layers)
    axes.set_title(title, loc="left", fontsize=10)
    chart.colorbar(image, ax=axes, pad=0.01, fraction=0.05, format=None if with_scale else "%g", extend=ends)


def _median(row: _Grid) -> float:
    """The median of the positive values; NaN without any."""
    held = row[np.isfinite(row) & (row > 0)]
    return float(np.median(held)) if held.size else math.nan


def _lines(axes: Axes, values: _Grid, kinds: list[str], layers: list[int], title: str) -> None:
    for i, kind in enumerate(kinds):
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        style["linestyle"] = ("-", "--", ":")[i // len(COLOURS) % 3]
        axes.plot(range(len(layers)), values[i], label=kind, markersize=4, linewidth=1.3, **style)
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(axis="y", alpha=0.3)
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.spines[["top", "right"]].set_visible(False)
    _layer_ticks(axes, layers)


def _layer_ticks(axes: Axes, layers: list[int]) -> None:
    step = max(1, math.ceil(len(layers) / 24))
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]], fontsize=8)
    axes.set_xlabel("layer", fontsize=9)
