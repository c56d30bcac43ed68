"""``gguftool imatrix``: importance matrices converted, merged, repaired (here), shown and compared (imatrix_look)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from gguftool.verbs.imatrix_files import Written

_Command = TypeVar("_Command", bound=Callable[..., Any])


@click.group("imatrix", no_args_is_help=True)
def command() -> None:
    """Convert, merge, compare, check and repair importance matrices, .gguf or .dat. The model is needed nowhere."""


def _reading(function: _Command) -> _Command:
    """Options that say how inputs are read, and whether an output is replaced."""
    for option in (
        click.option("--force", "overwrite", is_flag=True, help="Overwrite an existing output."),
        click.option("--exclude", multiple=True, metavar="TEXT", help="Leave out entries named so; repeatable."),
        click.option(
            "--include", multiple=True, metavar="TEXT", help="Only entries with this in the name; repeatable."
        ),
        click.option("--keep-fillers", is_flag=True, help="Experts that are nothing but 1 in a .dat were reached."),
        click.option("--experts", type=int, metavar="N", help="Experts per tensor in a .dat; 1 leaves them joined."),
        click.option("--model", type=click.Path(readable=False), help="GGUF model that knows the numbers of experts."),
        click.option("--chunk-size", type=int, metavar="N", help="Tokens per chunk of a .dat, 512 by default."),
        click.option("--output-format", type=click.Choice(["gguf", "dat"]), help="By the output's suffix by default."),
    ):
        function = option(function)
    return function


@command.command("convert")
@click.argument("src", metavar="IN", type=click.Path(readable=False))
@click.argument("dst", metavar="OUT", type=click.Path(readable=False))
@_reading
def convert(src: str, dst: str, **options: Any) -> None:
    """Convert the importance matrix IN to OUT, .gguf or .dat.

    A .dat file knows neither its chunk size nor its experts: give --chunk-size, and --model or --experts where the
    width of a router does not tell. Experts that no token reached are stored with mean 1 there; on the way back they
    count as not reached again. All that the output cannot hold is listed as lost.
    """
    from gguftool.verbs.imatrix_files import convert_imatrix

    report(convert_imatrix(src, dst, **options))


@command.command("merge")
@click.argument("sources", metavar="FILE...", nargs=-1, required=True, type=click.Path(readable=False))
@click.option("-o", "--output", "dst", metavar="OUT", required=True, type=click.Path(readable=False))
@click.option("--weight", "weights", multiple=True, type=float, help="What a token counts, once per FILE in order.")
@_reading
def merge(sources: Sequence[str], dst: str, weights: Sequence[float], **options: Any) -> None:
    """Merge any number of importance matrices of one model, of either form: every token weighs the same.

    Sums and counts are added in double precision, one tensor at a time. With --weight, once per FILE, a token of the
    second file may count twice as much as one of the first: --weight 1 --weight 2.
    """
    from gguftool.verbs.imatrix_files import merge_imatrices

    report(merge_imatrices(sources, dst, weights=list(weights) or None, **options))


def report(found: Written) -> None:
    """Prints what was written; what was lost or odd goes to stderr."""
    from gguftool.show.tables import printable, size_text

    for what, lines in (("warning", found.warnings), ("lost", found.lost), ("note", found.notes)):
        for line in lines:
            click.echo(printable(f"gguftool: {what}: {line}"), err=True)
    form = "GGUF" if found.format == "gguf" else "older form"
    matrices = f" ({found.n_matrices:,} matrices)" if found.n_matrices != found.n_entries else ""
    of = f" of {found.chunk_size} tokens" if found.format == "gguf" else ""
    click.echo(
        f"{printable(str(found.path))}: {form}, {found.n_entries:,} tensors{matrices}, {found.chunk_count:,} "
        f"chunk{'' if found.chunk_count == 1 else 's'}{of}, {size_text(found.n_bytes)}"
    )
