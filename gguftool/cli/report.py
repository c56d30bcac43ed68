"""``gguftool report``: a page on an importance matrix that a browser opens without a network."""

from __future__ import annotations

from pathlib import Path

import click

from gguftool.cli.weights import measured
from gguftool.errors import UsageError
from gguftool.verbs.report import report


@click.command("report")
@click.argument("imatrix", type=click.Path(readable=False, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The page to write (.html).")
@click.option("--model", type=click.Path(readable=False, path_type=Path), help="The model: its types, bytes and gaps.")
@click.option("--weights/--no-weights", default=True, show_default=True, help="Measure the model's weights too.")
@click.option("--threads", metavar="N", help="Threads for that; all cores by default.")
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
def command(imatrix: Path, output: Path, model: Path | None, weights: bool, threads: str | None, force: bool) -> None:
    """Write one self-contained page about IMATRIX, .dat or .gguf: it works offline and asks the network for nothing.

    A map of every statistic over layers and kinds of tensors (hover for values, click a layer for its tensors), tables
    that sort, the coverage of experts, warnings and provenance. With --model also what each tensor is stored in, which
    tensors have no importance, and the statistics of the weights, for which the whole model is read (--no-weights reads
    only its header). The same input gives the same bytes. Needs jinja2: pip install 'gguftool[report]'.
    """
    from gguftool.format.atomic import atomic_output
    from gguftool.show.report import check_installed, report_page

    check_installed()
    for source in (imatrix, model):
        if source is not None and output.exists() and source.exists() and output.samefile(source):
            raise UsageError(f"{output}: the output is one of the inputs")
    with atomic_output(output, overwrite=force) as file:
        measures = measured(str(model), None, threads) if model is not None and weights else None
        found = report(imatrix, model, weights=measures)
        file.write(report_page(found).encode())
    click.echo(f"{output}: {len(found.statistics.tensors)} tensors in {len(found.statistics.layers)} layers")
