"""``gguftool report``: a page on an importance matrix that a browser opens without a network."""

from __future__ import annotations

from pathlib import Path

import click

from gguftool.errors import UsageError
from gguftool.show.tables import size_text
from gguftool.verbs.report import report


@click.command("report")
@click.argument("imatrix", type=click.Path(readable=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The page to write (.html).")
@click.option("--model", type=click.Path(readable=False, path_type=Path), help="The model: its types, bytes and gaps.")
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
def command(imatrix: Path, output: Path, model: Path | None, force: bool) -> None:
    """Write one self-contained page about IMATRIX, .dat or .gguf: it works offline and asks the network for nothing.

    A map of every statistic over layers and kinds of tensors (hover for values, click a layer for its tensors), tables
    that sort, the coverage of experts, warnings and provenance. With --model also what each tensor is stored in, and
    which tensors have no importance. The same input gives the same bytes. Needs jinja2: pip install 'gguftool[report]'.
    """
    from gguftool.format.atomic import atomic_output
    from gguftool.show.report import report_page

    for source in (imatrix, model):
        if source is not None and output.exists() and source.exists() and output.samefile(source):
            raise UsageError(f"{output}: the output is one of the inputs")
    page = report_page(report(imatrix, model)).encode()
    with atomic_output(output, overwrite=force) as file:
        file.write(page)
    click.echo(f"{output}: {size_text(len(page))}")
