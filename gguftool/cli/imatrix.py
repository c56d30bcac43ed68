"""``gguftool imatrix``: importance matrices converted, merged, repaired (here), shown (imatrix_look), compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gguftool.cli import imatrix_diff, imatrix_look
from gguftool.cli.notices import say

if TYPE_CHECKING:
    from gguftool.verbs.imatrix_files import Written

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group("imatrix", no_args_is_help=True)
def command() -> None:
    """Convert, merge, compare, check and repair importance matrices, .gguf or .dat. No model is needed."""


def writing_options(function: _Command) -> _Command:
    """Options of commands that write: how inputs are read, which entries are kept, whether an output is replaced."""
    for option in (
        click.option("--force", "overwrite", is_flag=True, help="Overwrite an existing output."),
        click.option("--exclude", multiple=True, metavar="TEXT", help="Leave out entries named so; repeatable."),
        click.option("--include", multiple=True, metavar="TEXT", help="Only entries named so; repeatable."),
        click.option("--output-format", type=click.Choice(["gguf", "dat"]), help="By the output's suffix by default."),
    ):
        function = option(function)
    return imatrix_look.reading_options(function)


@command.command("convert", short_help="Write one in the other form, .gguf or .dat.")
@click.argument("src", metavar="IN", type=click.Path(readable=False))
@click.argument("dst", metavar="OUT", type=click.Path(readable=False))
@click.option("--prune-layers", metavar="LIST", help="Leave out layers, renumber the rest: 3,7,10-14.")
@writing_options
def convert(src: str, dst: str, prune_layers: str | None, **options: Any) -> None:
    """Convert the importance matrix IN to OUT, .gguf or .dat.

    A .dat file knows neither its chunk size nor its experts: give --chunk-size, and --model or --experts where the
    width of a router does not tell. Experts that no token reached are stored with mean 1 there; on the way back they
    count as not reached again. All that the output cannot hold is listed as lost.
    """
    from gguftool.verbs.imatrix_files import convert_imatrix

    report(convert_imatrix(src, dst, prune_layers=prune_layers or (), **options))


@command.command("merge", short_help="Add several up, every token alike.")
@click.argument("sources", metavar="FILE...", nargs=-1, required=True, type=click.Path(readable=False))
@click.option("-o", "--output", "dst", metavar="OUT", required=True, type=click.Path(readable=False),
              help="The file to write, .gguf or .dat.")  # fmt: skip
@click.option(
    "--weight", "weights", multiple=True, type=float, metavar="W", help="What a token counts, once per FILE in order."
)
@writing_options
def merge(sources: Sequence[str], dst: str, weights: Sequence[float], **options: Any) -> None:
    """Merge any number of importance matrices of one model, of either form: every token weighs the same.

    Sums and counts are added in double precision, one tensor at a time. With --weight, once per FILE, a token of the
    second file may count twice as much as one of the first: --weight 1 --weight 2.
    """
    from gguftool.verbs.imatrix_files import merge_imatrices

    report(merge_imatrices(sources, dst, weights=list(weights) or None, **options))


@command.command("repair", short_help="Fill experts without tokens and tensors without entry.")
@click.argument("src", metavar="IN", type=click.Path(readable=False))
@click.argument("dst", metavar="OUT", type=click.Path(readable=False))
@click.option(
    "--missing",
    default="mean,ones",
    show_default=True,
    metavar="POLICY,...",
    help="mean, neighbour, ones, error, in order.",
)
@click.option(
    "--min-tokens", type=int, default=1, show_default=True, metavar="N", help="Fewer tokens than this are none."
)
@click.option("--same-input/--no-same-input", default=True, help="First take what a tensor of the same input has.")
@click.option("--bad-values", type=click.Choice(["error", "missing"]), default="error", show_default=True,
              help="NaN, infinite or negative: refuse, or take the matrix as missing.")  # fmt: skip
@click.option("--format", "style", type=click.Choice(["table", "json", "csv", "markdown"]), default="table")
@writing_options
def repair(src: str, dst: str, style: str, **options: Any) -> None:
    """Fill the holes of the importance matrix IN: experts that no token reached; with --model, tensors without entry.

    A tensor that sees the same input (query, key and value; up and gate) is exact and is taken first. Else --missing:
    "mean" of the tensor's reached experts (for a whole tensor, of the same tensor in all layers), "neighbour", that
    mean in the nearest layer, "ones", no preference among channels, or "error"; the first that has an answer counts.
    Mean and neighbour have none for ffn_down and attn_output, whose channels mean something else in every layer and
    expert. Each repair is listed, and noted in OUT. A stand-in counts as one token, so that later merges forget it.
    """
    from gguftool.format.names import ranges
    from gguftool.show.tables import Column, render
    from gguftool.verbs.imatrix_repair import repair_imatrix

    found = repair_imatrix(src, dst, **options)
    columns = [Column("tensor", key="name"), Column("experts", left=True, key="matrices"), Column("of", key="n_mat"),
               Column("filled with", key="way"), Column("from", key="source")]  # fmt: skip
    rows = [
        [r.name, list(r.matrices) if style == "json" else ranges(r.matrices) if r.n_mat > 1 else "-", r.n_mat, r.way,
         r.source] for r in found.repairs
    ]  # fmt: skip
    if rows or style in ("json", "csv"):
        click.echo(render(columns, rows, style))
    report(found.written, summary=style in ("table", "markdown"))


def report(found: Written, *, summary: bool = True) -> None:
    """Prints what was written; what was lost or odd goes to stderr."""
    from gguftool.show.tables import printable, size_text

    say(found.warnings, "warning")
    say(found.lost, "lost")
    say(found.notes, "note")
    if not summary:
        return
    form = "GGUF" if found.format == "gguf" else "older form"
    matrices = f" ({found.n_matrices:,} matrices)" if found.n_matrices != found.n_entries else ""
    of = f" of {found.chunk_size} tokens" if found.format == "gguf" else ""
    click.echo(
        f"{printable(str(found.path))}: {form}, {found.n_entries:,} tensors{matrices}, {found.chunk_count:,} "
        f"chunk{'' if found.chunk_count == 1 else 's'}{of}, {size_text(found.n_bytes)}"
    )


for _look in (imatrix_look.show, imatrix_look.coverage, imatrix_diff.diff):
    command.add_command(_look)
