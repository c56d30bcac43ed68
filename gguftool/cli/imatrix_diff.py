"""``gguftool imatrix diff``: how importance matrices differ."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from gguftool.cli.imatrix_look import STYLE, cells
from gguftool.cli.notices import say
from gguftool.cli.plots import check_plot, figure, plot_difference

if TYPE_CHECKING:
    from gguftool.verbs.imatrix_diff import Difference


@click.command("diff", short_help="Compare two, tensor by tensor.")
@click.argument("a", type=click.Path(readable=False))
@click.argument("b", type=click.Path(readable=False))
@click.option(
    "--top",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    metavar="N",
    help="How many tensors, most moved first.",
)
@click.option(
    "--sort", type=click.Choice(["tv", "rank", "cosine"]), default="tv", show_default=True, help="Moved by what."
)
@click.option("--tensor", "tensors", metavar="REGEX", help="Only tensors whose names contain a match.")
@click.option("--all", "every", is_flag=True, help="All tensors, as CSV and JSON have them.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw the distances into a .png, .svg or .pdf.")
@click.option(
    "--plot-of", metavar="FIGURE", callback=figure, help="Draw a statistic of both files instead, and how it changed."
)
@STYLE
def diff(
    a: str,
    b: str,
    top: int,
    sort: str,
    tensors: str | None,
    every: bool,
    plot: str | None,
    plot_of: str | None,
    style: str,
) -> None:
    """Compare the importance matrices A and B of one model, tensor by tensor: to choose between calibration texts.

    rank: Spearman's rank correlation of the channels' importances; cosine; TV: the share of importance that lies on
    other channels, 0 to 1 (total variation). Experts count one by one, those reached in both. Below the summary per
    kind: the tensors that moved most, experts reached in one file only, tensors of one file only.
    """
    from gguftool.verbs.imatrix_diff import imatrix_difference

    check_plot(plot, plot_of)
    found = imatrix_difference(a, b, tensors=tensors)
    say(found.warnings)
    if plot:
        plot_difference(found, plot, {"rank": "rank_corr"}.get(sort, sort), plot_of, tensors)
    _show_difference(found, style, sort, None if every else top)


def _show_difference(found: Difference, style: str, sort: str, top: int | None) -> None:
    from gguftool.show.tables import Column, printable, render
    from gguftool.verbs.imatrix_diff import most_moved

    columns = [
        Column("tensor", key="name"), Column("layer"), Column("kind"), Column("channels", ",", key="n"),
        Column("rank", ".4f", key="rank_corr"), Column("cosine", ".4f"), Column("TV", ".4f", key="tv"),
        Column("reached A", key="reached_a"), Column("reached B", key="reached_b"), Column("only in", key="only_in"),
    ]  # fmt: skip
    kind_columns = [
        Column("kind"), Column("tensors"), Column("compared"), Column("rank", ".4f", key="rank_corr"),
        Column("least", ".4f", key="rank_corr_min"), Column("cosine", ".4f"), Column("least ", ".4f", key="cosine_min"),
        Column("TV", ".4f", key="tv"), Column("most", ".4f", key="tv_max"), Column("reached A", key="reached_a"),
        Column("reached B", key="reached_b"),
    ]  # fmt: skip
    kinds = cells(kind_columns, found.kinds)
    if style == "json":
        tensors = json.loads(render(columns, cells(columns, found.tensors), "json"))
        by_kind = json.loads(render(kind_columns, kinds, "json"))
        click.echo(json.dumps({"a": str(found.a), "b": str(found.b), "tensors": tensors, "kinds": by_kind}, indent=2))
        return
    if style == "csv":
        click.echo(render(columns, cells(columns, found.tensors), "csv"))
        return
    click.echo(f"A: {printable(str(found.a))}\nB: {printable(str(found.b))}\n")
    click.echo(render(kind_columns, kinds, style))
    click.echo()
    click.echo(_overall(found))
    moved = most_moved(found.tensors, sort)[:top]
    if moved and top != 0:
        click.echo()
        click.echo("moved most:" if top is not None else "all that were compared, those that moved most first:")
        click.echo(render(columns[:-1], cells(columns[:-1], moved), style))
    _show_one_sided(found, style)


def _overall(found: Difference) -> str:
    held = found.overall
    alone = len(found.tensors) - held.compared
    rest = f", {alone:,} not" if alone else ""
    if not held.compared:
        return f"0 tensors compared{rest}"
    return (
        f"{held.compared:,} tensors compared{rest}: TV {held.tv:.4f} on average, {held.tv_max:.4f} at most; rank "
        f"{held.rank_corr:.4f} on average, {held.rank_corr_min:.4f} at least"
    )


def _show_one_sided(found: Difference, style: str) -> None:
    from gguftool.show.tables import printable, render

    other = [row for row in found.tensors if not row.only_in and row.reached_a != row.reached_b]
    if other:
        click.echo()
        click.echo("experts reached:")
        click.echo(render(["tensor", "A", "B"], [[row.name, row.reached_a, row.reached_b] for row in other], style))
    for side in ("a", "b"):
        alone = [row.name for row in found.tensors if row.only_in == side]
        if alone:
            click.echo()
            click.echo(printable(f"only in {side.upper()}: {', '.join(alone)}"))
