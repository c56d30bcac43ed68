"""What ``gguftool stats --model`` prints: statistics of a model's weights, alone or beside those of activations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from gguftool.cli.notices import say

if TYPE_CHECKING:
    from gguftool.run.weights import WeightStatistics
    from gguftool.verbs.weights import Weights

#: Figures of weights by which --sort orders; the names of the columns of ``WeightStatistics``.
FIGURES = ("mean", "std", "min", "max", "abs_max", "skewness", "kurtosis", "zero_pct", "zd_weight")
SORTS = {"zd-weight": "zd_weight"} | {
    f"w-{figure.removesuffix('_pct').replace('_', '-')}": figure for figure in FIGURES[:-1]
}


def measured(model: str, tensors: str | None, threads: str | None) -> Weights:
    """Statistics of the model's weights, with a progress bar and warnings on stderr."""
    from tqdm import tqdm

    from gguftool.cli.words import parse_threads
    from gguftool.verbs.weights import weight_statistics

    with tqdm(disable=None, leave=False, unit="B", unit_scale=True, unit_divisor=1024, delay=1) as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = weight_statistics(
            model, tensors=tensors, threads=parse_threads(threads) if threads else None, progress=step
        )
    say(found.warnings, file=model)
    return found


def show(found: Weights, rows: Sequence[WeightStatistics], style: str, layers: bool | None) -> None:
    """Prints them, the tensors in the order of ``rows``."""
    from gguftool.run.weights import LayerWeights, WeightStatistics
    from gguftool.show.figures import weight_tables, whole_table
    from gguftool.show.tables import printable, render

    if style == "json":
        click.echo(json.dumps({"model": str(found.path)} | document(found, rows, layers), indent=2))
        return
    if style == "csv":
        whole = whole_table(found.by_layer, LayerWeights) if layers else whole_table(rows, WeightStatistics)
        click.echo(render(whole.columns, whole.cells, "csv"))
        return
    n = sum(row.n for row in rows)
    click.echo(f"{printable(str(found.path))}: {n:,} weights in {len(rows)} tensors, as they decode")
    click.echo(
        "ZD: share of the weights more than one std above the mean; a layer of small ZD is important (its paper)"
    )
    for table in weight_tables(rows, () if layers is False else found.by_layer):
        click.echo("")
        click.echo(render(table.columns, table.cells, style))


def document(found: Weights, rows: Sequence[WeightStatistics], layers: bool | None) -> dict[str, Any]:
    """The lists "weights" and "weight_layers" of a JSON document."""
    from gguftool.run.weights import LayerWeights, WeightStatistics
    from gguftool.show.figures import whole_table
    from gguftool.show.tables import render

    tables = {"weights": whole_table(rows, WeightStatistics)}
    if layers is not False:
        tables["weight_layers"] = whole_table(found.by_layer, LayerWeights)
    return {name: json.loads(render(table.columns, table.cells, "json")) for name, table in tables.items()}
