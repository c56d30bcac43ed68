"""``gguftool calibration``: texts for collecting an importance matrix."""

from __future__ import annotations

import click

from gguftool.cli.notices import say


@click.group("calibration", no_args_is_help=True)
def command() -> None:
    """Texts for collecting an importance matrix."""


@command.command("build")
@click.argument("mix", type=click.Path(readable=False))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The corpus, calib.txt say.")
@click.option("--force", is_flag=True, help="Replace outputs that exist.")
@click.option("--format", "style", type=click.Choice(["table", "json", "csv", "markdown"]), default="table")
def build(mix: str, output: str, force: bool, style: str) -> None:
    """Mix local texts into one corpus, as the TOML file MIX says.

    Sources are text, JSON Lines or Parquet, also .gz. Each gives the share that its weight asks for; documents that
    were there before are dropped, short ones joined into units, and a hold-out is kept apart that shares no thirteen
    words in a row with the corpus: measure with it. Beside calib.txt appear calib.holdout.txt and calib.manifest.json,
    which has licences, counts and hashes. The same texts give the same bytes. calibration/README.md says how a mix is
    written.
    """
    from tqdm import tqdm

    from gguftool.show.tables import Column, printable, render, size_text
    from gguftool.verbs.calibration import build_calibration

    with tqdm(disable=None, leave=False, unit="file") as bar:

        def step(name: str) -> None:
            bar.set_description(printable(name))
            bar.update()

        found = build_calibration(mix, output, overwrite=force, step=step)
    say(found.warnings, file=mix)
    if style == "json":
        click.echo(found.manifest.read_text("utf-8"), nl=False)
        return
    columns = [
        Column("source", key="name"), Column("licence"), Column("documents", ",", key="read"),
        Column("short", ","), Column("duplicates", ",", key="duplicate"), Column("units used", ",", key="used"),
        Column("bytes", ",", key="nbytes"), Column("share %", ".1f", key="share"),
        Column("asked %", ".1f", key="wanted"), Column("units held out", ",", key="held_out"),
    ]  # fmt: skip
    rows = [
        [r.name, r.licence or "-", r.read, r.short, r.duplicate, r.used, r.nbytes, 100 * r.share, 100 * r.wanted,
         r.held_out] for r in found.sources
    ]  # fmt: skip
    click.echo(render(columns, rows, style))
    if style in ("table", "markdown"):
        click.echo()
        click.echo(f"{printable(str(found.corpus))}: {size_text(found.nbytes)}, sha256 {found.sha256[:16]}")
        if found.holdout is not None:
            click.echo(f"{printable(str(found.holdout))}: {size_text(found.holdout_nbytes)}, kept apart for measuring")
        click.echo(f"{printable(str(found.manifest))}: licences, counts, hashes")
