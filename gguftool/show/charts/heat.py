"""Maps of statistics over layers and kinds of tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gguftool.show.charts.page import (
    ABSENT,
    FAINT,
    INK,
    SMALL,
    TIMES,
    Chart,
    figure_of,
    heading,
    inset,
    layer_ticks,
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
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage

    from gguftool.show.charts.table import Source

ROW = 0.25
#: Inches beside a chart that the word below its layers takes.
BESIDE = 0.45
#: At most this share of the values may lie beyond the colours.
_FEW = 0.05
#: Where the colours of multiples end.
_ENDS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
_BAR = 1.7


@dataclass(frozen=True, slots=True)
class Colouring:
    """Values as they are coloured, how, where the colour bar ends in arrows, and a text beside every row."""

    values: Grid
    norm: Normalize
    cmap: str
    extend: str = "neither"
    sign: str = ""
    beside: tuple[str, ...] = ()
    note: str = ""
    ticks: tuple[float, ...] = ()


@styled
def heatmap(source: Source, figures: str | Sequence[str] = "mean", *, title: str | None = None) -> Chart:
    """A map of a statistic, or of several below each other: a row per kind of tensor, a column per layer.

    ``source`` is a frame (``Imatrix.stats()``, ``.coverage()``, ``diff_imatrices``) or the Imatrix itself. Percentages,
    bits and cosines are coloured as they are; what carries the scale of a kind's activations as multiples of the
    kind's median, which stands beside the row. Grey: the layer has no such tensor; hatched: no value. Colours end
    where outliers begin. Kinds that see the same input share a row. UsageError if nothing lies in a layer.
    """
    names = [figures] if isinstance(figures, str) else list(figures)
    found = without_empty(table(source, names))
    colourings = {name: colouring(found.values[name], name) for name in names}
    chart, panels = stack(
        title if title is not None else found.file,
        [ROW * len(found.kinds)] * len(names),
        width=map_width(len(found.layers)),
        left=0.2 + widest(found.kinds, 8.0),
        right=max(BESIDE, 0.25 + max(widest(shown.beside, SMALL) for shown in colourings.values())),
        note=footnote(found, names, colourings.values()),
    )
    for axes, name in zip(panels, names, strict=True):
        draw_map(axes, found, colourings[name], words(name).title, last=axes is panels[-1])
    return chart


def map_width(n_layers: int) -> float:
    """Inches of a chart over that many layers."""
    return min(8.6, max(4.4, 0.27 * n_layers))


def colouring(values: Grid, figure: str) -> Colouring:
    """How the values of a statistic are coloured."""
    match words(figure).scale:
        case "own":
            return _multiples(values)
        case "ratio":
            return ratios(values)
        case "change":
            return changes(values)
        case "tail":
            return _tails(values)
    return _plain(values)


def draw_map(axes: Axes, found: Table, shown: Colouring, title: str, *, last: bool = True) -> None:
    """The map into axes, its colour bar above their right edge."""
    axes.set_facecolor(ABSENT)
    image = axes.imshow(shown.values, aspect="auto", cmap=shown.cmap, norm=shown.norm, interpolation="nearest")
    _hatch(axes, found.there & ~np.isfinite(shown.values))
    axes.set_yticks(range(len(found.kinds)), found.kinds, size=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    layer_ticks(axes, found.layers, label=last)
    _separate(axes, found.there.shape)
    for i, text in enumerate(shown.beside):
        axes.annotate(text, (1, i), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                      va="center", size=SMALL, color=INK)  # fmt: skip
    colour_bar(axes, image, shown)
    across = width_of(axes)
    heading(axes, title + shown.note, across - _BAR - 0.25)


def colour_bar(axes: Axes, image: AxesImage, shown: Colouring) -> None:
    """What the colours of a map mean, above its right edge."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    bar = inset(axes, right=0, above=0.08, width=_BAR, height=0.09)
    keyed = figure_of(axes).colorbar(image, cax=bar, orientation="horizontal", extend=shown.extend,
                                                ticklocation="top")  # fmt: skip
    keyed.outline.set_visible(False)
    keyed.set_ticks(shown.ticks or _bar_ticks(image.norm))
    bar.xaxis.set_minor_locator(NullLocator())
    bar.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{plain_number(value)}{shown.sign}"))
    bar.tick_params(labelsize=SMALL, length=2, pad=1)


def footnote(found: Table, figures: Sequence[str], shown: Iterable[Colouring]) -> str:
    """What the map's greys mean where it has them, and the figures of tensors that lie in no layer."""
    parts = []
    if not found.there.all():
        parts.append("grey: no such tensor")
    if any((found.there & ~np.isfinite(one.values)).any() for one in shown):
        parts.append("hatched: no value")
    outside = [
        f"{name} {plain_number(held[figure])}"
        for figure in figures[: len(figures) == 1]
        for name, held in found.apart.items()
        if math.isfinite(held[figure])
    ]
    if outside:
        parts.append(f"outside of layers: {'; '.join(outside[:4])}{' …' if len(outside) > 4 else ''}")
    return ".  ".join(parts)


def bounds(values: Grid) -> tuple[float, float, str]:
    """Least and greatest value that colours tell apart, and at which ends others lie beyond them.

    Far out is what lies three interquartile ranges from the quartiles, as in Tukey's box plots: it would bleach the
    rest. Where that is the greater part of the range, and few values, colours end at the outermost one not far out.
    """
    held = values[np.isfinite(values)]
    if not held.size:
        return 0.0, 1.0, "neither"
    low, first, third, high = (float(q) for q in np.quantile(held, (0, 0.25, 0.75, 1)))
    near = held[(held >= first - 3 * (third - first)) & (held <= third + 3 * (third - first))]
    inner_low, inner_high = float(near.min()), float(near.max())
    few = held.size - near.size <= max(1, _FEW * held.size)
    if few and inner_high > inner_low and high - low > 1.5 * (inner_high - inner_low):
        ends = {(True, True): "both", (True, False): "min", (False, True): "max"}
        return inner_low, inner_high, ends[low < inner_low, high > inner_high]
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    return low, high, "neither"


def _plain(values: Grid) -> Colouring:
    from matplotlib.colors import Normalize

    low, high, extend = bounds(values)
    if extend == "neither":
        low, high = _rounded(low, high)
    only = np.unique(values[np.isfinite(values)])
    return Colouring(values, Normalize(low, high), "viridis", extend, ticks=(float(only[0]),) if only.size == 1 else ())


def _rounded(low: float, high: float) -> tuple[float, float]:
    """The ends moved out to round numbers where those are near."""
    from matplotlib.ticker import MaxNLocator

    ticks = np.asarray(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    near = 0.12 * (high - low)
    first, last = float(ticks[ticks <= low].max(initial=-np.inf)), float(ticks[ticks >= high].min(initial=np.inf))
    return first if low - first < near else low, last if last - high < near else high


def _tails(values: Grid) -> Colouring:
    from matplotlib.colors import AsinhNorm

    held = values[np.isfinite(values)]
    low, high = (float(held.min()), float(held.max())) if held.size else (0.0, 1.0)
    if high - low < 10:
        return _plain(values)
    return Colouring(values, AsinhNorm(1.0, vmin=low, vmax=high), "viridis")


def _multiples(values: Grid) -> Colouring:
    """Every row as multiples of its median, on a logarithmic scale; signed ones of the median of their amounts."""
    if (values < 0).any():
        return _signed_multiples(values)
    medians = [_median(row[row > 0]) for row in values]
    shown = values / np.array(medians)[:, None]
    return _about_one(shown, tuple(plain_number(m) for m in medians), " / row's median (at right)", TIMES)


def ratios(values: Grid) -> Colouring:
    """Colours of quotients: light where they are 1, logarithmic to both sides."""
    return _about_one(np.where(values > 0, values, np.nan), (), "", TIMES)


def _about_one(shown: Grid, beside: tuple[str, ...], note: str, sign: str) -> Colouring:
    """Colours to both sides of 1, as far as all values but 3 % go, at least to 5/4 and at most to 10.

    One odd layer must not bleach the others; Tukey's fences would cut too much of figures that mostly stay near 1.
    """
    from matplotlib.colors import LogNorm

    amounts = np.abs(np.log(shown[np.isfinite(shown) & (shown > 0)]))
    far = math.exp(np.quantile(amounts, 0.97, method="lower")) if amounts.size else 1.0
    limit = next((end for end in _ENDS if end >= far * 0.999), _ENDS[-1])
    held = shown[np.isfinite(shown)]
    over, under = bool((held > limit * 1.0001).any()), bool((held < 0.9999 / limit).any())
    extend = "both" if over and under else "max" if over else "min" if under else "neither"
    shown = np.where(shown == 0, 0.1 / limit, shown)
    return Colouring(shown, LogNorm(1 / limit, limit), "PuOr_r", extend, sign, beside, note)


def _signed_multiples(values: Grid) -> Colouring:
    medians = [_median(np.abs(row[row != 0])) for row in values]
    shown = changes(values / np.array(medians)[:, None])
    beside = tuple(plain_number(m) for m in medians)
    return Colouring(shown.values, shown.norm, shown.cmap, shown.extend, TIMES, beside, " / row's median amount")


def changes(values: Grid) -> Colouring:
    """Colours of differences: light where they are 0, alike to both sides."""
    from matplotlib.colors import Normalize

    _, limit, extend = bounds(np.abs(values))
    limit = limit or 1.0
    return Colouring(values, Normalize(-limit, limit), "PuOr_r", "both" if extend != "neither" else extend)


def _median(held: Grid) -> float:
    held = held[np.isfinite(held)]
    return float(np.median(held)) if held.size else math.nan


def _bar_ticks(norm: Any) -> list[float]:
    from matplotlib.colors import AsinhNorm, LogNorm
    from matplotlib.ticker import MaxNLocator

    low, high = float(norm.vmin), float(norm.vmax)
    if isinstance(norm, LogNorm):
        if math.isclose(low * high, 1):
            return [low, 1.0, high]
        powers = [
            10.0**power for power in range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
        ]
        return powers if len(powers) > 1 else [low, high]
    if isinstance(norm, AsinhNorm):
        powers = [0.0, *(sign * 10.0**power for power in range(1, 15) for sign in (-1, 1))]
        held = sorted(tick for tick in powers if low <= tick <= high)
        return held[-1 :: -max(1, math.ceil(len(held) / 4))]
    return [
        float(tick) for tick in MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high
    ]


def _hatch(axes: Axes, cells: npt.NDArray[np.bool_]) -> None:
    """Hatches over cells."""
    from matplotlib.collections import PolyCollection

    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    squares = [corners + cell[::-1] for cell in np.argwhere(cells)]
    if squares:
        axes.add_collection(
            PolyCollection(squares, facecolor="white", edgecolor=FAINT, linewidth=0, hatch="/////"), autolim=False
        )


def _separate(axes: Axes, shape: tuple[int, ...]) -> None:
    """White lines between rows, and between columns where they are wide enough for that."""
    rows, columns = shape
    for y in range(1, rows):
        axes.axhline(y - 0.5, color="white", linewidth=1.2)
    across = width_of(axes)
    if across / columns > 0.1:
        for x in range(1, columns):
            axes.axvline(x - 0.5, color="white", linewidth=0.4)
