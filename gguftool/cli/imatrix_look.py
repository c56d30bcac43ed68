"""``gguftool imatrix show|coverage``: what importance matrices are, what they cover."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gguftool.cli.notices import say

if TYPE_CHECKING:
    from gguftool.show.tables import Column
    from gguftool.verbs.imatrix_coverage import Against, Coverage
    from gguftool.verbs.imatrix_show import Shown, ShownTensor

_Command = TypeVar("_Command", bound=Callable[..., Any])
STYLE = click.option("--format", "style", type=click.Choice(["table", "json", "csv", "markdown"]), default="table")


def reading_options(function: _Command) -> _Command:
    """Options that say what an input of the older form does not."""
    for option in (
        click.option("--keep-fillers", is_flag=True, help="Experts that are nothing but 1 in a .dat were reached."),
        click.option("--experts", type=int, metavar="N", help="Experts per tensor in a .dat; 1 leaves them joined."),
        click.option("--model", type=click.Path(readable=False), help="GGUF model: its experts, its weights."),
        click.option("--chunk-size", type=int, metavar="N", help="Tokens per chunk of a .dat, 512 by default."),
    ):
        function = option(function)
    return function


@click.command("show", short_help="Say what a file is, or a tensor's largest channels.")
@click.argument("file", type=click.Path(readable=False))
@click.option("--tensor", metavar="NAME", help="The channels of this tensor that matter most.")
@click.option("--matrix", type=int, metavar="E", help="Of --tensor, this expert only.")
@click.option("--top", type=int, default=10, show_default=True, metavar="N", help="How many channels of --tensor.")
@STYLE
@reading_options
def show(file: str, tensor: str | None, matrix: int | None, top: int, style: str, **options: Any) -> None:
    """Show what the importance matrix FILE is: its form, what it was made from, its tensors by kind and shape.

    With --tensor, the input channels with the largest share of their matrix's importance: the mean square of what went
    into them, how many times the median that is and, where the file has signed sums, the mean.
    """
    from gguftool.verbs.imatrix_show import show_imatrix, show_tensor

    if tensor is not None:
        _show_tensor(show_tensor(file, tensor, top=top, matrix=matrix, **options), style)
    else:
        if matrix is not None:
            raise click.UsageError("--matrix says which expert of --tensor: name a tensor")
        _show_file(show_imatrix(file, **options), style)


@click.command("coverage", short_help="Say which experts and weights have importances.")
@click.argument("file", type=click.Path(readable=False))
@click.option(
    "--min-tokens",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="Name experts with fewer tokens than this.",
)
@click.option("--check", is_flag=True, help="Exit with status 1 if anything is uncovered.")
@click.option("--tensors", "every", is_flag=True, help="Table of all tensors; CSV and JSON always have them.")
@click.option("--layers/--no-layers", default=None, help="Table of layers: by default if experts; in CSV if asked.")
@STYLE
@reading_options
@click.pass_context
def coverage(
    ctx: click.Context,
    /,
    file: str,
    min_tokens: int,
    check: bool,
    every: bool,
    layers: bool | None,
    style: str,
    **options: Any,
) -> None:
    """Show which experts the text of the importance matrix FILE reached, and by how many tokens.

    Per layer with experts: how many of them were reached, tokens of the least, median and most used one, and the
    routing entropy, 100 % if all got the same. With --model also weights without an entry, entries without a weight,
    and widths that disagree.

    Uncovered are experts with fewer tokens than --min-tokens, weights of blocks without an entry, entries of another
    width. Status 0 all the same, 1 with --check. Embeddings and the output are left out: collectors seldom record them.
    """
    from gguftool.verbs.imatrix_coverage import imatrix_coverage

    found = imatrix_coverage(file, min_tokens=min_tokens, **options)
    _say(found)
    _show_coverage(found, style, every, layers)
    if check and not found.complete:
        ctx.exit(1)


def _say(found: Shown | ShownTensor | Coverage) -> None:
    say(found.warnings)
    say(found.notes, "note")


def cells(columns: Sequence[Column], rows: Sequence[Any]) -> list[list[Any]]:
    """The rows' values, a column's key or name being that of the attribute."""
    return [[getattr(row, column.key or column.name) for column in columns] for row in rows]


def _show_file(found: Shown, style: str) -> None:
    from gguftool.format.names import ranges
    from gguftool.show.tables import Column, printable, render, size_text

    _say(found)
    columns = [
        Column("kind"), Column("tensors"), Column("layers", left=True), Column("experts", key="n_mat"),
        Column("reached", ",", key="n_reached"), Column("channels", ",", key="n_cols"), Column("tokens", ","),
        Column("signed"),
    ]  # fmt: skip
    rows = cells(columns, found.kinds)
    for row, kind in zip(rows, found.kinds, strict=True):
        row[2] = list(kind.layers) if style == "json" else ranges(kind.layers) or None
    if style == "json":
        document = {key: value for key, value in asdict(found).items() if key not in ("path", "kinds")}
        kinds = json.loads(render(columns, rows, "json"))
        click.echo(json.dumps({"file": str(found.path), **document, "kinds": kinds}, indent=2, default=str))
        return
    if style == "csv":
        click.echo(render(columns, rows, "csv"))
        return
    form = "GGUF" if found.format == "gguf" else "older form"
    click.echo(
        f"{printable(str(found.path))}: importance matrix ({form}), {found.n_entries:,} tensors, "
        f"{found.n_values:,} values, {size_text(found.n_bytes)}"
    )
    click.echo(f"made from: {', '.join(map(printable, found.datasets)) or 'not said'}")
    chunks = f"{found.chunk_count:,} chunks" if found.chunk_count is not None else "chunks not said"
    size = f" of {found.chunk_size} tokens" if found.chunk_size else ""
    guess = "" if found.chunk_size else " (if chunks have 512)"
    click.echo(chunks + size + (f", {found.tokens:,} tokens{guess}" if found.tokens else ""))
    for key, value in found.metadata.items():
        text = f"{len(value)} lines" if isinstance(value, list) and len(value) > 3 else str(value)
        click.echo(printable(f"{key}: {text}"))
    click.echo()
    click.echo(render(columns, rows, style))


def _show_tensor(found: ShownTensor, style: str) -> None:
    from gguftool.show.tables import Column, printable, render

    _say(found)
    columns = [
        Column("channel"), Column("mean square", ".5g", key="mean_square"), Column("share %", ".3f", key="share_pct"),
        Column("x median", ".1f", key="times_median"),
    ]  # fmt: skip
    if found.n_mat > 1:
        columns.insert(0, Column("expert", key="matrix"))
    if found.signed:
        columns.append(Column("mean", ".4g"))
    rows = cells(columns, found.channels)
    if style == "json":
        document = {
            "file": str(found.path),
            **{k: v for k, v in asdict(found).items() if k not in ("path", "channels")},
        }
        click.echo(json.dumps({**document, "channels": json.loads(render(columns, rows, "json"))}, indent=2))
        return
    if style == "csv":
        click.echo(render(columns, rows, "csv"))
        return
    experts = f"{found.n_mat} experts ({found.n_reached} reached) of " if found.n_mat > 1 else ""
    counts = f", {sum(found.counts):,} tokens" if found.counts is not None else ""
    click.echo(f"{printable(found.name)}: {experts}{found.n_cols:,} channels{counts}")
    click.echo()
    click.echo(render(columns, rows, style))


def _show_coverage(found: Coverage, style: str, every: bool, layers: bool | None) -> None:
    from gguftool.show.tables import Column, render

    tensor_columns = [
        Column("tensor", key="name"), Column("layer"), Column("kind"), Column("experts", key="n_mat"),
        Column("reached", key="n_reached"), Column("%", ".2f", key="reached_pct"), Column("tokens", ","),
        Column("least", ","), Column("median", ",.0f"), Column("most", ","),
        Column("routing entropy", ".3f", key="routing_entropy"), Column("even %", ".2f", key="routing_entropy_pct"),
    ]  # fmt: skip
    layer_columns = [
        Column("layer"), Column("tensors"), Column("experts"), Column("matrices"), Column("reached", key="n_reached"),
        Column("%", ".2f", key="reached_pct"), Column("least", ","), Column("median", ",.0f"), Column("most", ","),
        Column("even %", ".2f", key="routing_entropy_pct"),
    ]  # fmt: skip
    if len({row.stack for row in found.layers}) > 1:
        layer_columns.insert(0, Column("stack"))
    tensors, by_layer = cells(tensor_columns, found.tensors), cells(layer_columns, found.layers)
    if style == "json":
        rows = {"tensors": (tensor_columns, tensors), "layers": (layer_columns, by_layer)}
        _coverage_json(found, {key: json.loads(render(*held, "json")) for key, held in rows.items()})
        return
    if style == "csv":
        click.echo(render(layer_columns, by_layer, "csv") if layers else render(tensor_columns, tensors, "csv"))
        return
    for line in _coverage_lines(found):
        click.echo(line)
    if layers is not False and by_layer:
        click.echo()
        click.echo(render(layer_columns, by_layer, style))
    if every:
        click.echo()
        click.echo(render(tensor_columns, tensors, style))
    _show_sparse(found, style)
    if found.against is not None:
        _show_against(found.against, style)


def _coverage_json(found: Coverage, tables: dict[str, Any]) -> None:
    document = {
        "file": str(found.path), "format": found.format, "min_tokens": found.min_tokens, "complete": found.complete,
        "sparse": [asdict(row) for row in found.sparse],
        "model": asdict(found.against) if found.against is not None else None,
    }  # fmt: skip
    click.echo(json.dumps({**document, **tables}, indent=2, default=str))


def _coverage_lines(found: Coverage) -> list[str]:
    from gguftool.show.tables import printable

    single = [row for row in found.tensors if row.n_mat == 1]
    routed = [row for row in found.tensors if row.n_mat > 1]
    lines = [f"{printable(str(found.path))}: {len(found.tensors):,} tensors"]
    tokens = {row.tokens for row in single if row.tokens is not None}
    if single:
        reached = sum(row.n_reached for row in single)
        least, most = min(tokens, default=0), max(tokens, default=0)
        many = f", {least:,} tokens each" if least == most else f", {least:,} to {most:,} tokens"
        lines.append(f"of one matrix: {reached:,} of {len(single):,} reached{many if tokens else ''}")
    if routed:
        reached, total = sum(row.n_reached for row in routed), sum(row.n_mat for row in routed)
        lines.append(
            f"experts in {len(routed):,} tensors: {reached:,} of {total:,} reached ({100 * reached / total:.2f} %)"
        )
    return lines


def _show_sparse(found: Coverage, style: str) -> None:
    from gguftool.format.names import place_of, ranges
    from gguftool.show.tables import Column, render

    if not found.sparse:
        return
    columns = [Column("layer"), Column("tensors", left=True), Column("never reached", left=True)]
    if found.min_tokens > 1:
        columns.append(Column(f"below {found.min_tokens:,} tokens", left=True))
    groups: dict[tuple[str, int | None, str, str], list[str]] = {}
    for held in found.sparse:
        never, below = ("all" if held.n_mat == 1 and which else ranges(which) for which in (held.never, held.below))
        stack, layer, kind = place_of(held.name)
        groups.setdefault((stack, layer, never, below), []).append(kind)
    rows = [[layer, ", ".join(kinds), never, below] for (_, layer, never, below), kinds in groups.items()]
    click.echo()
    click.echo(render(columns, [row[: len(columns)] for row in rows], style))


def _show_against(held: Against, style: str) -> None:
    from gguftool.show.tables import Column, printable, render

    click.echo()
    click.echo(
        f"{printable(str(held.model))}: {held.n_weights:,} weights, {len(held.missing):,} without an entry, "
        f"{len(held.disagreeing):,} of another width, {len(held.spare):,} entries for no weight"
    )
    rows = _by_kind("no entry", [(weight.name, _stand_in(held, weight.name)) for weight in held.missing])
    rows += _by_kind("no entry, as usual", [(weight.name, weight.why_absent) for weight in held.not_collected])
    rows += _by_kind("another width", [
        (name, f"{x[0]} x {x[1]} here, {y[0]} x {y[1]} in the model") for name, x, y in held.disagreeing
    ])  # fmt: skip
    rows += _by_kind("no weight", [(name, "") for name in held.spare])
    if rows:
        click.echo()
        click.echo(render(["what", "tensor", Column("layers", left=True), "note"], rows, style))


def _by_kind(what: str, held: Sequence[tuple[str, str]]) -> list[list[Any]]:
    """Rows of (name, note) that differ in their layer alone joined into one."""
    from gguftool.format.names import place_of, ranges

    groups: dict[tuple[str, str, str], list[int]] = {}
    for name, note in held:
        stack, layer, kind = place_of(name)
        groups.setdefault((stack, kind, note), []).extend([] if layer is None else [layer])
    return [[what, kind, ranges(sorted(layers)) or "-", note] for (_, kind, note), layers in groups.items()]


def _stand_in(held: Against, name: str) -> str:
    from gguftool.format.names import place_of

    return f"{place_of(held.alias[name])[2]} sees the same input" if name in held.alias else ""
