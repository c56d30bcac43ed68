"""The options of a chart, and which chart they mean: for the commands that draw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import click

from gguftool.errors import UsageError
from gguftool.imatrix.figures import FIGURES

if TYPE_CHECKING:
    from gguftool.verbs.imatrix_diff import Difference
    from gguftool.verbs.stats import Statistics

#: Word of a figure, as options take it -> its column.
FIGURE_WORDS = {column.removesuffix("_pct").replace("_", "-"): column for column in FIGURES}
KINDS = ("overview", "heatmap", "lines", "channels", "experts")
#: What is drawn where --plot-of does not say.
_USUAL = {"overview": ("mean", "zd_pct", "cossim"), "heatmap": ("mean",), "lines": ("zd_pct", "cossim")}


def known_word(value: str, known: Collection[str]) -> str:
    """The word for a figure, which may be named as its column is, zd_pct for zd; BadParameter if it is none."""
    word = value.removesuffix("_pct").replace("_", "-")
    if word not in known:
        raise click.BadParameter(f"'{value}' is none of {', '.join(known)}")
    return word


def figure(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """The column of a figure, or the columns of several, by word or by column."""
    if isinstance(value, tuple):
        return tuple(figure(context, option, one) for one in value)
    return None if value is None else FIGURE_WORDS[known_word(value, FIGURE_WORDS)]


def plot_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--plot, --plot-kind and --plot-of, which takes names of statistics."""
    for option in (
        click.option("--plot-of", multiple=True, callback=figure, metavar="FIGURE", help="What to draw; several "
                     "stand below each other. By default mean, and zd and cossim as lines."),
        click.option("--plot-kind", type=click.Choice(KINDS), help="A map above lines (the default), a map, "
                     "lines, the channels' importances, or the experts' tokens."),
        click.option("--plot", type=click.Path(dir_okay=False), help="Draw a chart into this .png, .svg or .pdf."),
    ):  # fmt: skip
        command = option(command)
    return command


def check_plot(path: str | None, *chosen: object) -> None:
    """UsageError for a choice of chart without a file to draw it into, or one that no chart can have; no file read."""
    if path is not None:
        from gguftool.show.charts.page import check_chart

        check_chart(path)
    elif any(chosen):
        raise UsageError("that chooses a chart: name a file with --plot")


def plot_stats(found: Statistics, path: str, kind: str | None, figures: Sequence[str]) -> None:
    """Draws statistics into a file; the distributions of channels and the experts' tokens are read from theirs."""
    from gguftool.imatrix.file import open_imatrix
    from gguftool.show import charts

    title, kind = found.path.name, kind or "overview"
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


def plot_difference(found: Difference, path: str, by: str, figure: str | None, tensors: str | None) -> None:
    """Draws how far the tensors of two files are ``by``, or a statistic of both and how it changed."""
    from gguftool.show import charts
    from gguftool.verbs.stats import stats

    names = found.a.name, found.b.name
    if figure is None:
        chart = charts.moved(found.tensors, by, title=" → ".join(names))
    else:
        sides = [stats(side, tensors=tensors).tensors for side in (found.a, found.b)]
        chart = charts.difference(sides[0], sides[1], figure, names=names)
    charts.save(chart, path)
