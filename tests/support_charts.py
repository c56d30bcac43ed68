"""Checks of figures: every text is on the page, and none lies over another."""

from __future__ import annotations

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def texts(chart: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is drawn, with its box in pixels."""
    canvas = FigureCanvasAgg(chart)
    canvas.draw()
    renderer = canvas.get_renderer()
    found = []
    for axes in chart.axes:  # matplotlib keeps labels of ticks beyond the limits, which it does not draw
        for axis in (axes.xaxis, axes.yaxis):
            drawn = {id(label) for tick in axis._update_ticks() for label in (tick.label1, tick.label2)}
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                for label in (tick.label1, tick.label2):
                    if id(label) not in drawn or not axes.axison:
                        label.set_visible(False)
    for text in chart.findobj(Text):
        if text.get_visible() and text.get_text().strip() and (text.axes is None or text.axes.axison):
            found.append((text.get_text(), text.get_window_extent(renderer)))
    return found


def check_readable(chart: Figure) -> None:
    """AssertionError naming the texts that are cut off or lie over each other."""
    page, found = chart.bbox, texts(chart)
    assert found
    for text, box in found:
        assert box.x0 >= page.x0 - 0.5 and box.x1 <= page.x1 + 0.5, f"'{text}' is cut off"
        assert box.y0 >= page.y0 - 0.5 and box.y1 <= page.y1 + 0.5, f"'{text}' is cut off"
    for (one, a), (other, b) in combinations(found, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 0.5 or down <= 1.0, f"'{one}' and '{other}' overlap by {across:.1f} x {down:.1f} pixels"
