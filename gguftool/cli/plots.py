"""The options of a chart, and which chart they mean: for the commands that draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from gguftool.errors import UsageError

if TYPE_CHECKING:
    from gguftool.verbs.stats import Statistics

KINDS = ("overview", "heatmap", "lines", "channels", "experts")
#: What is drawn where --plot-of does not say.
_USUAL = {"overview": ("mean", "zd_pct", "cossim"), "heatmap": ("mean",), "lines": ("zd_pct", "cossim")}


def plot_options(names: Sequence[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--plot, --plot-kind and --plot-of, which takes these names of statistics."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option("--plot-of", multiple=True, type=click.Choice(list(names)), metavar="FIGURE", help="What "
                         "to draw; several stand below each other. By default mean, and zd and cossim as lines."),
            click.option("--plot-kind", type=click.Choice(KINDS), default="overview", show_default=True,
                         help="Chart: a map above lines, a map, lines, importances of the channels, experts' tokens."),
            click.option("--plot", type=click.Path(dir_okay=False), help="Draw a chart into this .png, .svg or .pdf."),
        ):  # fmt: skip
            command = option(command)
        return command

    return add


def plot_stats(found: Statistics, path: str, kind: str, figures: Sequence[str]) -> None:
    """Draws statistics into a file; the distributions of channels and the experts' tokens are read from theirs."""
    from gguftool.imatrix.file import open_imatrix
    from gguftool.show import charts

    title = found.path.name
    if kind in ("channels", "experts"):
        if figures:
            raise UsageError(f"--plot-kind {kind} draws no statistic: leave --plot-of out")
        names = [row.name for row in found.tensors]
        with open_imatrix(found.path) as imatrix:
            chart = charts.channels(imatrix, names) if kind == "channels" else charts.experts(imatrix, names)
    else:
        wanted = list(figures) or list(_USUAL[kind])
        if kind == "overview":
            over = wanted[1:] or _USUAL["overview"][1:]
            chart = charts.overview(found.tensors, wanted[0], over, title=title)
        else:
            chart = (charts.heatmap if kind == "heatmap" else charts.lines)(found.tensors, wanted, title=title)
    charts.save(chart, path)
