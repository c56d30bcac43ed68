"""``gguftool stats``: what an importance matrix says about the activations of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from gguftool.cli import weights
from gguftool.cli.notices import say
from gguftool.cli.plots import FIGURE_WORDS, check_plot, known_word, plot_options, plot_stats
from gguftool.errors import UsageError
from gguftool.imatrix.figures import LayerStatistics, TensorStatistics
from gguftool.verbs.stats import Statistics, ordered, stats, upstream_stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gguftool.run.weights import WeightStatistics
    from gguftool.verbs.weights import Weights

_SORTS = {"kind": "kind", "layer": "layer", "name": "name"}
_SORTS |= FIGURE_WORDS


def _order(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """An order by its word, or by the name that its figure has as a column."""
    if value is None:
        return None
    return known_word(value, [*_SORTS, *weights.SORTS])


@click.command("stats")
@click.argument("file", type=click.Path(readable=False), required=False)
@click.option("--model", type=click.Path(readable=False), help="A GGUF model: statistics of its weights, too or alone.")
@click.option(
    "--sort",
    callback=_order,
    metavar="ORDER",
    help="kind (then layer: the default), layer, name or a figure.",
)
@click.option("--format", "style", type=click.Choice(["table", "json", "csv", "markdown"]), default="table")
@click.option("--compat", type=click.Choice(["upstream"]), help="Agree digit for digit with llama-imatrix.")
@click.option("--layers/--no-layers", default=None, help="Table of layers: shown by default, in CSV only if asked.")
@click.option("--tensor", "tensors", metavar="REGEX", help="Only tensors whose names contain a match.")
@click.option("--all", "every", is_flag=True, help="Every figure, in several tables; CSV and JSON always have them.")
@click.option("--columns", metavar="NAME,...", help="Only these columns, named as in CSV.")
@click.option("-v", "--verbose", is_flag=True, help="Also name the tensors of the file that belong to no entry.")
@click.option("--threads", metavar="N", help="Threads for the weights; all cores by default.")
@plot_options
def command(
    file: str | None,
    model: str | None,
    threads: str | None,
    sort: str | None,
    style: str,
    compat: str | None,
    layers: bool | None,
    tensors: str | None,
    plot: str | None,
    plot_kind: str | None,
    plot_of: tuple[str, ...],
    verbose: bool,
    every: bool,
    columns: str | None,
) -> None:
    """Statistics of the importance matrix in FILE, .dat or .gguf, and of the weights of a --model. Either will do.

    Per tensor: sum, minimum, maximum, mean and standard deviation of the mean squared activations of its input
    channels; the percentage of channels above 1e-5; the entropy of their shares in bits and in percent of the greatest
    possible; ZD, the percentage of channels more than one deviation above the mean; the cosine similarity with the
    nearest earlier layer that has the tensor in the same shape ("back" layers before, where that is not always 1).
    Undefined is "-" and enters no average. Tensors stand together by kind, because only tensors of one kind may be
    compared: --sort by a figure keeps kinds apart.

    Per layer: "sum" is the total over tensors, "weighted sum" upstream's average; averages go by numbers of channels.

    --all adds the shape of the distribution, experts one by one, comparisons of layers, and signed means where the file
    has them. docs/statistics.md says what each figure means, and what it does not.

    --model: distribution of the weights per tensor and layer; ZD, the share of weights more than one deviation above
    the mean: by its paper, layers of small ZD are important.

    --compat upstream prints what llama-imatrix --show-statistics prints: cosines of raw sums with the layer directly
    before, 0 where there is none, float32 arithmetic.
    """  # fmt: skip
    check_plot(plot, plot_kind, plot_of)
    if compat:
        if file is None or model or sort or plot or every or columns:
            raise UsageError(
                "--compat upstream takes a FILE, and has upstream's order and columns, no chart: leave the others out"
            )
        _compat(file, style, layers, tensors)
        return
    view = _View(sort or "kind", style, layers, every, _chosen(columns, every))
    if file is None:
        _weights_alone(model, view, tensors, threads, bool(plot or every or columns))
        return
    if view.order in weights.SORTS and model is None:
        raise UsageError(f"--sort {view.order} orders weights: name a --model")
    found = stats(file, tensors=tensors)
    say(found.warnings, file=file)
    if verbose:
        say((f"tensor '{name}' belongs to no entry, ignored" for name in found.ignored), "note", file=file)
    if plot:
        plot_stats(found, plot, plot_kind, plot_of)
    _show(found, weights.measured(model, tensors, threads) if model else None, view)


@dataclass(frozen=True, slots=True)
class _View:
    """How tables are wanted."""

    order: str
    style: str
    layers: bool | None
    every: bool
    chosen: list[str]


def _weights_alone(model: str | None, view: _View, tensors: str | None, threads: str | None, more: bool) -> None:
    if model is None:
        raise UsageError("name an importance matrix, or a --model, or both")
    if more:
        raise UsageError("--plot, --all and --columns are for an importance matrix: name one")
    found = weights.measured(model, tensors, threads)
    by = weights.SORTS.get(view.order) or _SORTS[view.order]
    weights.show(found, ordered(found.by_tensor, by, weights.FIGURES), view.style, view.layers)


def _chosen(columns: str | None, every: bool) -> list[str]:
    from gguftool.show.figures import check_columns

    if columns is None:
        return []
    if every:
        raise UsageError("--all and --columns exclude each other")
    names = [FIGURE_WORDS.get(name.strip(), name.strip()) for name in columns.split(",")]
    check_columns(names)
    return names


def _show(found: Statistics, measured: Weights | None, view: _View) -> None:
    from gguftool.show.figures import layer_tables, tensor_tables
    from gguftool.show.tables import render

    rows = ordered(found.tensors, _SORTS.get(view.order, "kind"))
    if view.style == "json":
        click.echo(_json(found, rows, measured, view))
        return
    if view.style == "csv":
        click.echo(_csv(found, rows, measured, view))
        return
    for line in _headline(found):
        click.echo(line)
    tables = tensor_tables(rows, every=view.every, chosen=view.chosen)
    if view.layers is not False and found.layers:
        tables += layer_tables(found.layers, every=view.every)
    for table in tables:
        click.echo(f"\n{table.title}\n" if table.title else "")
        click.echo(render(table.columns, table.cells, view.style))
    if measured:
        click.echo("")
        weights.show(measured, _weight_rows(measured, view), view.style, view.layers)


def _weight_rows(measured: Weights, view: _View) -> list[WeightStatistics]:
    return ordered(measured.by_tensor, weights.SORTS.get(view.order, "kind"), weights.FIGURES)


def _csv(found: Statistics, rows: Sequence[TensorStatistics], measured: Weights | None, view: _View) -> str:
    from gguftool.show.figures import whole_table, with_weights
    from gguftool.show.tables import render

    if view.layers:
        table = whole_table(found.layers, LayerStatistics)
        if measured:
            table = with_weights(table, measured.by_layer, ["stack", "layer"])
    else:
        table = whole_table(rows, TensorStatistics, view.chosen)
        if measured:
            table = with_weights(table, measured.by_tensor, ["name"])
    return render(table.columns, table.cells, "csv")


def _headline(found: Statistics) -> list[str]:
    from gguftool.show.tables import printable

    kind = "GGUF" if found.format == "gguf" else "older form"
    source = f", made from {', '.join(printable(d) for d in found.datasets)}" if found.datasets else ""
    of = f" of {found.n_entries}" if found.n_entries != len(found.tensors) else ""
    where = f" in {len(found.layers)} layers" if found.layers else ""
    lines = [f"{printable(str(found.path))}: importance matrix ({kind}){source}"]
    parts = [f"{len(found.tensors)}{of} tensors{where}"]
    if found.chunk_count is not None:
        size = f" of {found.chunk_size} tokens" if found.chunk_size is not None else ""
        parts.append(f"{found.chunk_count:,} chunk{'' if found.chunk_count == 1 else 's'}{size}")
    if found.tokens is not None:
        guess = "" if found.chunk_size else " (if chunks have 512)"
        parts.append(f"{found.tokens:,} token{'' if found.tokens == 1 else 's'}{guess}")
    lines.append(", ".join(parts))
    if found.n_experts:
        inferred = ", their number inferred from the routers" if found.inferred else ""
        seen = found.n_experts - found.unreached
        percent = 100 * seen / found.n_experts
        lines.append(f"experts: {seen:,} of {found.n_experts:,} reached ({percent:.2f} %){inferred}")
    return lines


def _json(found: Statistics, rows: Sequence[TensorStatistics], measured: Weights | None, view: _View) -> str:
    import json

    from gguftool.show.figures import whole_table
    from gguftool.show.tables import render

    tensors, by_layer = whole_table(rows, TensorStatistics, view.chosen), whole_table(found.layers, LayerStatistics)
    document: dict[str, object] = {
        "file": str(found.path),
        "format": found.format,
        "datasets": list(found.datasets),
        "chunk_count": found.chunk_count,
        "chunk_size": found.chunk_size,
        "tokens": found.tokens,
        "n_experts": found.n_experts,
        "unreached": found.unreached,
        "tensors": json.loads(render(tensors.columns, tensors.cells, "json")),
    }
    if view.layers is not False:
        document["layers"] = json.loads(render(by_layer.columns, by_layer.cells, "json"))
    if measured:
        document |= {"model": str(measured.path)}
        document |= weights.document(measured, _weight_rows(measured, view), view.layers)
    return json.dumps(document, indent=2)


def _compat(file: str, style: str, layers: bool | None, tensors: str | None) -> None:
    from gguftool.show.showstatistics import upstream_tables, upstream_text
    from gguftool.show.tables import render

    found = upstream_stats(file, tensors=tensors)
    say(found.warnings, file=file)
    if style == "table":
        click.echo(upstream_text(file, found.tensors, found.layers, layers is not False), nl=False)
        return
    by_tensor, by_layer = upstream_tables(found.tensors, found.layers)
    if style == "json":
        import json

        document = {"file": file, "tensors": json.loads(render(*by_tensor, "json"))}
        if layers is not False:
            document["layers"] = json.loads(render(*by_layer, "json"))
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(render(*(by_layer if layers else by_tensor), style))
