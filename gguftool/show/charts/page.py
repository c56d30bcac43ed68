"""The page that charts are drawn on: a figure without global state, its style, its layout in inches, its file.

Nothing here or beside it touches ``pyplot``: a chart is a plain object, which is drawn alike whatever the caller's own
settings are, twice the same bytes, and shown by a notebook once, because it is the value of its cell.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import lru_cache, wraps
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure

from gguftool.errors import UsageError
from gguftool.format.atomic import atomic_output, check_output
from gguftool.show.tables import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

P = ParamSpec("P")
R = TypeVar("R")

#: Okabe and Ito's palette without its yellow, which is lost on white. It is told apart by colour-blind eyes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP*"
INK, FAINT, ABSENT = "#222222", "#8A8A8A", "#DCDCDC"
SMALL, NORMAL = 7.5, 9.0
TIMES, MINUS = "\u00d7", "\u2212"
DPI = 150
_STYLE: dict[str, Any] = {
    "text.parse_math": False,  # a "$" in a file's name is a "$"
    "svg.hashsalt": "gguftool",
    "axes.linewidth": 0.6, "axes.edgecolor": FAINT, "axes.spines.top": False, "axes.spines.right": False,
    "axes.labelcolor": INK, "text.color": INK, "xtick.color": FAINT, "ytick.color": FAINT,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL,
    "xtick.major.size": 2.5, "ytick.major.size": 2.5, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.labelsize": 8.0, "legend.fontsize": SMALL, "legend.frameon": False, "font.size": NORMAL,
    "hatch.linewidth": 0.5, "hatch.color": FAINT, "grid.color": "#E2E2E2", "grid.linewidth": 0.6,
}  # fmt: skip
_NO_DATE: dict[str, dict[str, None]] = {
    "png": {"Software": None}, "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None},
}  # fmt: skip


class Chart(Figure):
    """A matplotlib figure that a notebook shows by itself, at half its pixels so that it stays sharp."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = (round(inches * DPI / 2) for inches in self.get_size_inches())
        return _drawn(self, "png"), {"width": width, "height": height}


def save(chart: Figure, path: str | Path) -> None:
    """Writes a figure as PNG, SVG or PDF, as the name's ending says, whole or not at all; the same bytes each time.

    UsageError for another ending. A file of that name is replaced.
    """
    raw = _drawn(chart, check_chart(path))
    with atomic_output(path, overwrite=True) as file:
        file.write(raw)


def check_chart(path: str | Path) -> str:
    """The format that a chart's name asks for: png, svg, pdf. UsageError for another, OSError where no file can be."""
    ending = Path(path).suffix.removeprefix(".").lower()
    if ending not in _NO_DATE:
        raise UsageError(f"'{path}': a chart's name ends in one of {', '.join(_NO_DATE)}")
    check_output(Path(path), overwrite=True)
    return ending


def styled(make: Callable[P, R]) -> Callable[P, R]:
    """The function run under the charts' own settings, the caller's untouched before and after."""

    @wraps(make)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _style():
            return make(*args, **kwargs)

    return run


def stack(
    title: str,
    heights: Sequence[float],
    *,
    width: float,
    left: float,
    right: float,
    head: float | Sequence[float] = 0.42,
    foot: float = 0.32,
    note: str = "",
) -> tuple[Chart, list[Axes]]:
    """A figure with axes of these heights below each other, all measures in inches, under a title and above a note.

    ``left``, ``width`` and ``right`` are labels, axes and what stands beside them; ``head`` is what stands above each
    of the axes and ``foot`` what stands below the last.
    """
    heads = [head] * len(heights) if isinstance(head, float) else head
    across, top = left + width + right, 0.36 if title else 0.08
    said = wrapped(note, across - left - 0.1, 7)
    down = top + sum(heights) + sum(heads) + (len(heights) - 1) * 0.3 + foot + 0.14 * len(said) + 0.06
    chart = Chart(figsize=(across, down))
    FigureCanvasAgg(chart)
    if title:
        shown = fit(title, across - 0.25, 10.5, "bold")
        chart.text(0.12 / across, 1 - 0.1 / down, shown, size=10.5, weight="bold", va="top")
    for i, line in enumerate(reversed(said)):
        chart.text(left / across, (0.07 + 0.14 * i) / down, line, size=7, color=FAINT)
    found, y = [], down - top
    for above, height in zip(heads, heights, strict=True):
        y -= above + height
        found.append(chart.add_axes((left / across, y / down, width / across, height / down)))
        y -= 0.3
    return chart, found


def inset(axes: Axes, *, right: float, above: float, width: float, height: float) -> Axes:
    """Axes of a size in inches, ``above`` the top of others, ending ``right`` of their right edge."""
    figure = figure_of(axes)
    across, down = figure.get_size_inches()
    place = axes.get_position()
    x, y = place.x1 + (right - width) / across, place.y1 + above / down
    found: Axes = figure.add_axes((x, y, width / across, height / down))
    return found


def figure_of(axes: Axes) -> Figure:
    """The figure that axes stand in."""
    found = axes.figure
    assert isinstance(found, Figure)
    return found


def width_of(axes: Axes) -> float:
    """Inches that axes are wide."""
    return float(figure_of(axes).get_size_inches()[0] * axes.get_position().width)


def heading(axes: Axes, text: str, room: float) -> None:
    """What the axes show, above their left edge, in ``room`` inches."""
    size = NORMAL
    while text_width(text, size) > room and size > 6.5:
        size -= 0.25
    axes.annotate(
        fit(text, room, size), (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", size=size
    )


def wrapped(text: str, room: float, size: float) -> list[str]:
    """The text as lines of at most ``room`` inches, two at most."""
    lines: list[str] = []
    for word in text.split():
        wider = f"{lines[-1]} {word}" if lines else word
        if lines and (len(lines) == 2 or text_width(wider, size) <= room):
            lines[-1] = wider
        else:
            lines.append(word)
    return [fit(line, room, size) for line in lines]


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Inches that a text takes in this size in points."""
    from matplotlib.font_manager import FontProperties

    text = printable(text)  # a character without a glyph is as good as none, and matplotlib warns of it
    if not text:
        return 0.0
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    return float(_measure().get_text_width_height_descent(text, font, False)[0]) / DPI


@lru_cache(1)
def _measure() -> Any:
    make: Any = RendererAgg  # untyped
    return make(1, 1, DPI)


def widest(texts: Sequence[str], size: float) -> float:
    """Inches of the widest text."""
    return max((text_width(text, size) for text in texts), default=0.0)


def fit(text: str, room: float, size: float, weight: str = "normal") -> str:
    """The text on one line, its middle left out if it is wider than ``room`` inches."""
    text = printable(text)
    if len(text) > 400:
        text = f"{text[:200]}…{text[-200:]}"
    if text_width(text, size, weight) <= room:
        return text
    for kept in range(len(text) - 1, 3, -1):
        short = f"{text[: math.ceil(kept / 2)]}…{text[len(text) - kept // 2 :]}"
        if text_width(short, size, weight) <= room:
            return short
    return "…"


def layer_ticks(axes: Axes, layers: Sequence[int], *, label: bool = True, vertical: bool = False) -> None:
    """Ticks under columns 0, 1, ... that hold these layers, at round layer numbers and as many as fit."""
    across, down = figure_of(axes).get_size_inches()
    place = axes.get_position()
    room = place.height * down / 0.14 if vertical else place.width * across
    if not vertical:
        room /= max(0.2, widest([str(layer) for layer in layers[-3:]], SMALL) + 0.1)
    found = next(ticks for step in _steps() if len(ticks := _round_ticks(layers, step)) <= max(1, room))
    axis = axes.yaxis if vertical else axes.xaxis
    axis.set_ticks(found, [str(layers[i]) for i in found])
    if label:
        axes.annotate("layer", (1, 0), (5, -6), xycoords="axes fraction", textcoords="offset points",
                      va="top", size=SMALL)  # fmt: skip


def _steps() -> Iterator[int]:
    return (factor * 10**power for power in range(20) for factor in (1, 2, 5))


def _round_ticks(layers: Sequence[int], step: int) -> list[int]:
    """Places of the layers that the step divides; every step-th place where those are few, as in pruned models."""
    found = [i for i, layer in enumerate(layers) if layer % step == 0]
    return found if len(found) * step * 2 >= len(layers) else list(range(0, len(layers), step))


def log_ticks(axes: Axes) -> None:
    """Labels and grid of a logarithmic axis whose limits are set: decades, and between them where those are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.get_ylim()
    between = (1,) if high / low > 1000 else (1, 3) if high / low > 50 else (1, 2, 5)
    axes.yaxis.set_major_locator(LogLocator(10, subs=between, numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(plain_number))
    axes.grid(axis="y")


def plain_number(value: float, _position: object = None) -> str:
    """A number as a reader wants it on an axis: 0.001, 12, 1,500, 3e+06."""
    said = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return said.replace("-", MINUS, 1) if value < 0 else said


def marker_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of line number ``index``: 21 differ."""
    dashes: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)))
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": dashes[index // len(COLOURS) % 3],
    }


def _drawn(chart: Figure, ending: str) -> bytes:
    out = BytesIO()
    with _style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        chart.savefig(out, format=ending, dpi=DPI, metadata=_NO_DATE[ending])
    return out.getvalue()


@contextmanager
def _style() -> Iterator[None]:
    machine = ("backend", "interactive", "toolbar", "webagg", "tk.")
    keep = {n: value for n, value in matplotlib.rcParamsDefault.items() if not n.startswith(machine)}
    settings: Any = keep | _STYLE
    with matplotlib.rc_context(settings):
        yield
