"""Statistics as lines over layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gguftool.show.charts.heat import BESIDE, ROW, colouring, draw_map, footnote, map_width
from gguftool.show.charts.page import (
    FAINT,
    SMALL,
    Chart,
    heading,
    layer_ticks,
    log_ticks,
    marker_style,
    plain_number,
    stack,
    styled,
    widest,
    width_of,
)
from gguftool.show.charts.table import Grid, Table, table, without_empty
from gguftool.show.charts.words import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gguftool.show.charts.table import Source

_PANEL = 1.75


@styled
def lines(source: Source, figures: str | Sequence[str] = "zd_pct", *, title: str | None = None) -> Chart:
    """Lines of a statistic, or of several below each other, over the layers: one line per kind of tensor.

    ``source`` as for ``heatmap``, also ``Imatrix.layers()``, whose lines are one per stack. Lines join the layers that
    have the tensor, also where others lie between (hybrid models), and break where there is no value.
    """
    names = [figures] if isinstance(figures, str) else list(figures)
    found = without_empty(table(source, names))
    chart, panels = stack(
        title if title is not None else found.file,
        [max(_PANEL, 0.17 * len(found.kinds))] + [_PANEL] * (len(names) - 1),
        width=map_width(len(found.layers)),
        left=0.65,
        right=legend_width(found.kinds),
        head=0.3,
    )
    for axes, name in zip(panels, names, strict=True):
        draw_lines(axes, found, name, last=axes is panels[-1])
    if len(found.kinds) > 1:
        legend(panels[0])
    return chart


@styled
def overview(
    source: Source, figure: str = "mean", over: Sequence[str] = ("zd_pct", "cossim"), *, title: str | None = None
) -> Chart:
    """``heatmap`` of one statistic above ``lines`` of others, layer under layer, on one page."""
    found = without_empty(table(source, [figure, *over]))
    shown = colouring(found.values[figure], figure)
    chart, panels = stack(
        title if title is not None else found.file,
        [ROW * len(found.kinds), *[_PANEL] * len(over)],
        width=map_width(len(found.layers)),
        left=max(0.65, 0.2 + widest(found.kinds, 8.0)),
        right=max(legend_width(found.kinds), 0.25 + widest(shown.beside, SMALL)),
        head=[0.42, *[0.3] * len(over)],
        note=footnote(found, [figure], [shown]),
    )
    draw_map(panels[0], found, shown, words(figure).title, last=False)
    for axes, name in zip(panels[1:], over, strict=True):
        draw_lines(axes, found, name, last=axes is panels[-1])
    if len(found.kinds) > 1 and over:
        legend(panels[1])
    return chart


def draw_lines(axes: Axes, found: Table, figure: str, *, last: bool = True) -> None:
    """One line per kind into axes."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    values = found.values[figure]
    for i, kind in enumerate(found.kinds):
        at = np.flatnonzero(found.there[i])
        every = max(1, len(at) // 14)
        style = marker_style(i) | {"markevery": (i * every // 3 % every, every), "markersize": 3.5, "linewidth": 1.2}
        axes.plot(at, values[i, at], label=kind, **style)
    if _wide(values, words(figure).scale):
        axes.set_yscale("log")
        log_ticks(axes)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(FuncFormatter(plain_number))
        axes.grid(axis="y")
    if words(figure).scale == "ratio":
        axes.axhline(1, color=FAINT, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    if not np.isfinite(values).any():
        axes.set_yticks([])
        axes.annotate("no value", (0.5, 0.5), xycoords="axes fraction", ha="center", color=FAINT)
    axes.set_xlim(-0.5, len(found.layers) - 0.5)
    layer_ticks(axes, found.layers, label=last)
    across = width_of(axes)
    heading(axes, words(figure).title, across)


def legend(axes: Axes) -> None:
    """The names of the lines beside the axes."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, handlelength=2.6, labelspacing=0.35)


def legend_width(labels: Sequence[str]) -> float:
    """Inches that ``legend`` takes."""
    return 0.55 + widest(labels, SMALL) if len(labels) > 1 else BESIDE


def _wide(values: Grid, scale: str) -> bool:
    """Whether a logarithmic axis is wanted: positive values of several orders of magnitude."""
    held = values[np.isfinite(values)]
    return scale != "plain" and bool(held.size) and held.min() > 0 and held.max() > 20 * held.min()
