"""``gguftool copy``: a model as it is, in one file or its shards, with fewer layers or other metadata if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


@click.command("copy")
@click.argument("src", metavar="IN", type=click.Path(readable=False, path_type=Path))
@click.argument("dst", metavar="OUT", type=click.Path(readable=False, path_type=Path))
@click.option("--prune-layers", metavar="L,L-L", help="Layers to leave out: 3,7 or 10-14.")
@click.option(
    "--allow-layer-arrays",
    is_flag=True,
    help="Pruning: write a per-layer array where no period fits; older programs then run the wrong layers.",
)
@click.option("--allow-unknown-arrays", is_flag=True, help="Pruning: cut unknown arrays of one entry per layer too.")
@click.option("--prune-nextn", is_flag=True, help="Pruning: next-token layers may go.")
@click.option("--override-kv", multiple=True, metavar="KEY=TYPE:VALUE", help="Set metadata: int, float, bool or str.")
@click.option("--keep-split", is_flag=True, help="Keep the shards of the input instead of joining them.")
@click.option("--unpack", is_flag=True, help="Take the interleaved rows of _R4 types apart: iq4_k_r4 becomes iq4_k.")
@click.option("--dry-run", is_flag=True, help="Say what would be written.")
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
@click.option("--restart", is_flag=True, help="Give up an unfinished output and start anew.")
@click.option("--threads", metavar="N", help="Threads; all cores by default.")
@click.option("--no-sync", is_flag=True, help="Do not wait until the disk has the last bytes.")
@click.option("--json", "as_json", is_flag=True, help="Print the result, or the dry run, as JSON.")
def command(src: Path, dst: Path, prune_layers: str | None, threads: str | None, **options: Any) -> None:
    """Copy the model IN to OUT; no value changes. Any shard stands for the whole model."""
    from gguftool.cli.running import describe, run
    from gguftool.cli.words import parse_threads, prune_switches
    from gguftool.verbs.rewrite import Request, prepare

    layers: tuple[int, ...] = ()
    if prune_layers is not None:
        from gguftool.plan.layers import parse_layers

        layers = parse_layers(prune_layers)
    request = Request(
        src=src,
        dst=dst,
        prune_layers=layers,
        prune_allowed=prune_switches(options),
        overrides=options["override_kv"],
        keep_split=options["keep_split"],
        unpack=options["unpack"],
        file_order=True,
        force=options["force"],
        restart=options["restart"],
        threads=parse_threads(threads) if threads else None,
        sync=not options["no_sync"],
    )
    with prepare(request) as prepared:
        if options["dry_run"]:
            describe(prepared, as_json=options["as_json"])
        else:
            run(prepared, as_json=options["as_json"])
