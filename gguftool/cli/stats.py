"""``gguftool stats``: what an importance matrix says about the activations of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gguftool.errors import UsageError
from gguftool.verbs.stats import FIGURES, Statistics, ordered, stats, upstream_stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gguftool.imatrix.statistics import LayerStatistics, TensorStatistics
    from gguftool.show.tables import Column

_SORTS = {"kind": "kind", "layer": "layer", "name": "name", "entropy-norm": "entropy_norm_pct", "zd": "zd_pct"}
_SORTS |= {"active": "active_pct"} | {f: f for f in FIGURES if not f.endswith("_pct")}


@click.command("stats")
@click.argument("file", type=click.Path(readable=False))
@click.option("--sort", type=click.Choice(list(_SORTS)), help="Order of the tensors; kind, then layer, by default.")
@click.option("--format", "style", type=click.Choice(["table", "json", "csv", "markdown"]), default="table")
@click.option("--compat", type=click.Choice(["upstream"]), help="Agree digit for digit with llama-imatrix.")
@click.option("--layers/--no-layers", default=None, help="Table of layers: shown by default, in CSV only if asked.")
@click.option("--tensor", "tensors", metavar="REGEX", help="Only tensors whose names contain a match.")
@click.option("-v", "--verbose", is_flag=True, help="Also name the tensors of the file that belong to no entry.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw a chart into this file (.png, .svg, .pdf).")
@click.option("--plot-of", type=click.Choice(list(_SORTS)[3:]), default="mean", show_default=True, help="What it maps.")
def command(
    file: str,
    sort: str | None,
    style: str,
    compat: str | None,
    layers: bool | None,
    tensors: str | None,
    plot: str | None,
    plot_of: str,
    verbose: bool,
) -> None:
    """Statistics of the importance matrix in FILE, .dat or .gguf. No model is needed.

    Per tensor: sum, minimum, maximum, mean and standard deviation of the mean squared activations of its input
    channels; the percentage of channels above 1e-5; the entropy of their shares in bits and in percent of the greatest
    possible; ZD, the percentage of channels more than one deviation above the mean; the cosine similarity with the
    nearest earlier layer that has the tensor in the same shape ("back" layers before, where that is not always 1).
    Undefined is "-" and enters no average. Tensors stand together by kind, because only tensors of one kind may be
    compared: --sort by a figure keeps kinds apart.

    Per layer: "sum" is the total over tensors, "weighted sum" upstream's average; averages go by numbers of channels.

    --compat upstream prints what llama-imatrix --show-statistics prints: cosines of raw sums with the layer directly
    before, 0 where there is none, float32 arithmetic.
    """  # fmt: skip
    if compat:
        if sort or plot:
            raise UsageError("--compat upstream has upstream's order and no chart: leave --sort and --plot out")
        _compat(file, style, layers, tensors)
        return
    found = stats(file, tensors=tensors)
    for line in found.warnings:
        click.echo(f"gguftool: warning: {file}: {line}", err=True)
    if verbose:
        for name in found.ignored:
            click.echo(f"gguftool: {file}: tensor '{name}' belongs to no entry, ignored", err=True)
    if plot:
        from gguftool.show.charts import imatrix_chart, save

        save(imatrix_chart(found.tensors, _SORTS[plot_of], found.path.name), plot)
    _show(found, ordered(found.tensors, _SORTS[sort or "kind"]), style, layers)


def _show(found: Statistics, rows: Sequence[TensorStatistics], style: str, layers: bool | None) -> None:
    from gguftool.show.tables import render

    columns, cells = _tensor_table(rows)
    layer_columns, layer_cells = _layer_table(found.layers)
    if style == "json":
        click.echo(_json(found, render(columns, cells, "json"), render(layer_columns, layer_cells, "json"), layers))
        return
    if style == "csv":
        click.echo(render(layer_columns, layer_cells, "csv") if layers else render(columns, cells, "csv"))
        return
    for line in _headline(found):
        click.echo(line)
    click.echo()
    click.echo(render(*_readable(columns, cells), style))
    if layers is not False and found.layers:
        click.echo()
        click.echo(render(layer_columns, layer_cells, style))


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
        parts.append(f"{found.tokens:,} tokens" + ("" if found.chunk_size else " (if chunks have 512)"))
    lines.append(", ".join(parts))
    if found.n_experts:
        inferred = ", their number inferred from the routers" if found.inferred else ""
        seen = found.n_experts - found.unreached
        percent = 100 * seen / found.n_experts
        lines.append(f"experts: {seen:,} of {found.n_experts:,} reached ({percent:.2f} %){inferred}")
    return lines


def _tensor_table(rows: Sequence[TensorStatistics]) -> tuple[list[Column], list[list[Any]]]:
    from gguftool.show.tables import Column

    columns = [
        Column("name", key="name"), Column("kind"), Column("layer"), Column("experts", key="n_mat"),
        Column("reached", key="n_reached"), Column("tokens"), Column("N", key="n"), Column("Σ x²", ".2f", key="sum"),
        Column("min", ".4g"), Column("max", ".3f"), Column("mean", ".3f"), Column("std", ".3f"),
        Column("active %", ".2f", key="active_pct"), Column("entropy", ".4f"),
        Column("entropy %", ".2f", key="entropy_norm_pct"), Column("ZD %", ".2f", key="zd_pct"),
        Column("cossim", ".4f"), Column("back", key="distance"),
    ]  # fmt: skip
    return columns, [[getattr(row, column.key or column.name) for column in columns] for row in rows]


def _layer_table(rows: Sequence[LayerStatistics]) -> tuple[list[Column], list[list[Any]]]:
    from gguftool.show.tables import Column

    columns = [
        Column("layer"), Column("tensors"), Column("N", key="n"), Column("sum", ".2f", key="total"),
        Column("per channel", ".4f", key="mean"), Column("weighted sum", ".2f", key="weighted_sum"),
        Column("ZD %", ".4f", key="zd_pct"), Column("cossim", ".4f"), Column("compared"),
    ]  # fmt: skip
    several = len({row.stack for row in rows}) > 1
    if several:
        columns.insert(0, Column("stack"))
    return columns, [[getattr(row, column.key or column.name) for column in columns] for row in rows]


def _readable(columns: list[Column], cells: list[list[Any]]) -> tuple[list[Column], list[list[Any]]]:
    """The columns that a reader needs: a name is its kind and layer, and experts matter only where there are some."""
    by_key = {column.key or column.name: i for i, column in enumerate(columns)}
    dropped = {by_key["name"]}
    if all(row[by_key["n_mat"]] == 1 for row in cells):
        dropped |= {by_key["n_mat"], by_key["n_reached"]}
    if all(row[by_key["distance"]] in (None, 1) for row in cells):
        dropped.add(by_key["distance"])
    if len({row[by_key["tokens"]] for row in cells}) < 2:
        dropped.add(by_key["tokens"])
    kept = [i for i in range(len(columns)) if i not in dropped]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in cells]


def _json(found: Statistics, tensors: str, by_layer: str, layers: bool | None) -> str:
    import json

    document = {
        "file": str(found.path),
        "format": found.format,
        "datasets": list(found.datasets),
        "chunk_count": found.chunk_count,
        "chunk_size": found.chunk_size,
        "tokens": found.tokens,
        "n_experts": found.n_experts,
        "unreached": found.unreached,
        "tensors": json.loads(tensors),
    }
    if layers is not False:
        document["layers"] = json.loads(by_layer)
    return json.dumps(document, indent=2)


def _compat(file: str, style: str, layers: bool | None, tensors: str | None) -> None:
    from gguftool.show.showstatistics import upstream_tables, upstream_text
    from gguftool.show.tables import render

    found = upstream_stats(file, tensors=tensors)
    for line in found.warnings:
        click.echo(f"gguftool: warning: {file}: {line}", err=True)
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
