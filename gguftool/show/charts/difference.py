"""Two importance matrices compared: what changed, and which tensors moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gguftool.errors import UsageError
from gguftool.show.charts.heat import (
    BESIDE,
    ROW,
    Colouring,
    changes,
    colouring,
    draw_map,
    footnote,
    map_width,
    ratios,
)  # fmt: skip
from gguftool.show.charts.page import (
    COLOURS,
    FAINT,
    MINUS,
    SMALL,
    Chart,
    heading,
    plain_number,
    stack,
    styled,
    widest,
    width_of,
)  # fmt: skip
from gguftool.show.charts.table import Grid, Table, file_of, table
from gguftool.show.charts.words import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gguftool.show.charts.table import Source

#: Figures of a comparison of which the least, not the greatest, says that a tensor moved most.
_ALIKE = ("rank_corr", "cosine")


@styled
def difference(
    a: Source, b: Source, figure: str = "mean", *, names: tuple[str, str] | None = None, title: str | None = None
) -> Chart:
    """Maps of one statistic in two files, in the same colours, and of what changed from the first to the second.

    ``a`` and ``b`` are frames or Imatrix objects, ``names`` what to call them if not by their files. The change is a
    quotient where the statistic carries the scale of the activations, else a difference. Layers and kinds that only one
    has are grey in the other.
    """
    first, second = table(a, [figure]), table(b, [figure])
    if first.kinds != second.kinds:
        first, second = table(a, [figure], merge=False), table(b, [figure], merge=False)
    first, second = _aligned(first, second)
    before, after = first.values[figure], second.values[figure]
    both = colouring(np.hstack([before, after]), figure)
    shown = [_with(both, values) for values in np.hsplit(both.values, 2)]
    quotient = words(figure).scale in ("own", "ratio") and not ((before < 0) | (after < 0)).any()
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = ratios(after / before) if quotient else changes(after - before)
    common = Table("", first.kinds, first.layers, first.there & second.there, {}, {})
    names = names or (file_of(a) or "first", file_of(b) or "second")
    chart, panels = stack(
        f"{names[0]} → {names[1]}" if title is None else title,
        [ROW * len(first.kinds)] * 3,
        width=map_width(len(first.layers)),
        left=0.2 + widest(first.kinds, 8.0),
        right=max(BESIDE, 0.25 + widest(both.beside, SMALL)),
        note=footnote(common, [], [moved]),
    )
    said = words(figure).title
    draw_map(panels[0], first, shown[0], f"first: {said}")
    draw_map(panels[1], second, shown[1], f"second: {said}")
    change = "second / first" if quotient else f"second {MINUS} first"
    draw_map(panels[2], common, moved, f"{change}: {said}")
    return chart


@styled
def moved(frame: Source, figure: str = "tv", *, most: int = 20, title: str | None = None) -> Chart:
    """A map of how far the tensors of two files are apart, above bars of those that moved most.

    ``frame`` comes from ``diff_imatrices``; ``figure`` is one of its columns: tv, rank_corr, cosine.
    """
    found = table(frame, [figure])
    ranked = _ranked(found, figure, most)
    if not ranked:
        raise UsageError(f"the two files have no tensor in common with a value of '{figure}'")
    labels = [label for label, _ in ranked]
    chart, (top, bottom) = stack(
        found.file if title is None else title,
        [ROW * len(found.kinds), 0.16 * len(ranked) + 0.1],
        width=map_width(len(found.layers)),
        left=0.2 + max(widest(found.kinds, 8.0), widest(labels, SMALL)),
        right=0.6,
        note=footnote(found, [figure], [colouring(found.values[figure], figure)]),
    )
    draw_map(top, found, colouring(found.values[figure], figure), words(figure).title)
    _bars(bottom, ranked, f"the {len(ranked)} tensors that moved most: {words(figure).title}")
    return chart


def _aligned(a: Table, b: Table) -> tuple[Table, Table]:
    """Both tables over the kinds and layers of either."""
    kinds = tuple(sorted({*a.kinds, *b.kinds}))
    layers = tuple(sorted({*a.layers, *b.layers}))

    def spread(one: Table) -> Table:
        at = np.ix_([kinds.index(kind) for kind in one.kinds], [layers.index(layer) for layer in one.layers])
        there = np.zeros((len(kinds), len(layers)), bool)
        there[at] = one.there
        values = {name: np.full(there.shape, np.nan) for name in one.values}
        for name, grid in one.values.items():
            values[name][at] = grid
        return Table(one.file, kinds, layers, there, values, one.apart)

    return spread(a), spread(b)


def _with(shown: Colouring, values: Grid) -> Colouring:
    return Colouring(values, shown.norm, shown.cmap, shown.extend, shown.sign, shown.beside, shown.note)


def _ranked(found: Table, figure: str, most: int) -> list[tuple[str, float]]:
    """(tensor, value) of those that moved most, the farthest first."""
    values = found.values[figure]
    held = [
        (f"layer {layer}: {kind}", float(values[i, j]))
        for i, kind in enumerate(found.kinds)
        for j, layer in enumerate(found.layers)
        if np.isfinite(values[i, j])
    ]
    sign = 1 if figure in _ALIKE else -1
    return sorted(held, key=lambda one: sign * one[1])[:most]


def _bars(axes: Axes, ranked: list[tuple[str, float]], title: str) -> None:
    rows = np.arange(len(ranked))
    values = [value for _, value in ranked]
    axes.hlines(rows, 0, values, color=FAINT, linewidth=0.8)
    axes.plot(values, rows, "o", color=COLOURS[0], markersize=4)
    for row, value in zip(rows, values, strict=True):
        axes.annotate(plain_number(value), (value, row), (5, 0), textcoords="offset points", va="center", size=SMALL)
    axes.set_yticks(rows, [label for label, _ in ranked])
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlim(min(0.0, *values), max(0.0, *values) * 1.02 or 1.0)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    heading(axes, title, width_of(axes) + 0.5)
