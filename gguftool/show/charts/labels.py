"""Numbers beside points, where there is room for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gguftool.show.charts.page import INK, figure_of, text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = 6.5
_Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A point, its number, and a weight: the heaviest is numbered first."""

    x: float
    y: float
    text: str
    weight: float


def number(axes: Axes, marks: Sequence[Mark], *, most: int = 14, clear: Sequence[float] = ()) -> None:
    """Writes the numbers of the heaviest marks to their right, left or top, never over another or over a mark.

    ``clear`` are heights of lines that no number may cross.
    """
    scale = 72 / figure_of(axes).dpi
    frame = tuple(scale * edge for edge in axes.get_window_extent().extents)
    pixels = [axes.transData.transform((mark.x, mark.y)) for mark in marks]
    points = [(scale * float(x), scale * float(y)) for x, y in pixels]
    taken: list[_Box] = [(x - 1.5, y - 1.5, x + 1.5, y + 1.5) for x, y in points]
    for height in clear:
        y = scale * float(axes.transData.transform((0, height))[1])
        taken.append((frame[0], y - 0.7, frame[2], y + 0.7))
    order = sorted(range(len(marks)), key=lambda i: (-marks[i].weight, marks[i].x, marks[i].text))
    written = 0
    for i in order:
        if written == most:
            break
        width = 72 * text_width(marks[i].text, _SIZE)
        for box, (dx, dy, ha) in _places(*points[i], width):
            if _inside(box, frame) and not any(_overlap(box, other) for other in taken):
                axes.annotate(marks[i].text, (marks[i].x, marks[i].y), (dx, dy), textcoords="offset points",
                              ha=ha, va="center", size=_SIZE, color=INK, zorder=5)  # fmt: skip
                taken.append(box)
                written += 1
                break


def _places(x: float, y: float, width: float) -> list[tuple[_Box, tuple[float, float, str]]]:
    half = 0.55 * _SIZE
    return [
        ((x + 2, y - half, x + 5 + width, y + half), (3, 0, "left")),
        ((x - 5 - width, y - half, x - 2, y + half), (-3, 0, "right")),
        ((x - width / 2 - 1, y + 2, x + width / 2 + 1, y + 2 + 2 * half), (0, 2 + half, "center")),
    ]


def _inside(box: _Box, frame: Sequence[float]) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] + 4 and box[3] <= frame[3] + 4


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
