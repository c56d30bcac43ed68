"""``gguftool plan --prune N``: options, and the tables that stand beside the recipe on stderr."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gguftool.errors import UsageError

if TYPE_CHECKING:
    from gguftool.llama.perplexity import Divergence
    from gguftool.verbs.prune_plan import PrunePlan, Way

_Command = TypeVar("_Command", bound=Callable[..., Any])


#: Options that mean nothing without --prune, by the names of their parameters.
PRUNE_ONLY = {
    "text": "--file",
    "chunks": "--chunks",
    "candidates": "--candidates",
    "threads": "--threads",
    "keep_layers": "--keep-layers",
    "protect": "--protect",
}


def prune_options(function: _Command) -> _Command:
    """Options of a plan that leaves layers out."""
    for option in (
        click.option("-t", "--threads", type=int, help="Threads for measuring; all cores by default."),
        click.option("--candidates", type=int, default=6, show_default=True, help="Lists of layers to measure."),
        click.option("--chunks", type=int, default=20, show_default=True, help="Chunks of 512 tokens to measure on."),
        click.option("-f", "--file", "text", type=click.Path(readable=False, path_type=Path),
                     help="Measure candidates on this text before naming one (needs --model, llama-cpp-python, and "
                          "room for a copy of the model in the folder for temporary files)."),
        click.option("--keep-layers", metavar="LIST", default="", help="Layers that are not to go: 3,7,10-14."),
        click.option("--protect", metavar="FIRST,LAST", default="1,1", show_default=True,
                     help="So many layers at either end stay."),
        click.option("--prune", type=int, metavar="N", help="Leave out the N layers that are easiest to miss."),
    ):  # fmt: skip
        function = option(function)
    return function


def planned(imatrix: Path, type_name: str, asked: dict[str, Any], options: dict[str, Any]) -> PrunePlan:
    """The pruning plan that the options ask for; the candidates are measured if there is a text."""
    from tqdm import tqdm

    from gguftool.plan.layers import parse_layers
    from gguftool.verbs.prune_plan import Trial, plan_pruning

    keep = parse_layers(options["keep_layers"], "--keep-layers") if options["keep_layers"] else ()
    trial = None
    if options["text"] is not None:
        threads = options["threads"] or os.cpu_count() or 1
        trial = Trial(options["text"], options["chunks"], candidates=options["candidates"], threads=threads)
    with tqdm(disable=None if trial else True, leave=False, unit="model") as bar:

        def step(name: str) -> None:
            bar.set_description(name)
            bar.update()

        return plan_pruning(
            imatrix, type_name, options["prune"], protect=_protect(options["protect"]), keep=keep, trial=trial,
            step=step, **asked,
        )  # fmt: skip


def tables(plan: PrunePlan) -> str:
    """The layers ranked, the candidates measured, and the two ways to the same size, for people."""
    from gguftool.format.names import ranges
    from gguftool.show.tables import Column, render

    gone = set(plan.chosen)
    layers = render(
        [Column("layer"), Column("rank"), Column("score", ".3f"), Column("cosine before", ".4f"), Column("gain", ".4f"),
         Column("entropy %", ".2f"), Column("cosine next", ".4f"), Column("", left=True)],
        [[r.layer, r.rank or None, r.score, r.cossim_before, r.gain, r.entropy_norm_pct, r.cossim_next,
          "goes" if r.layer in gone else r.protected and f"stays: {r.protected}"] for r in plan.layers],
    )  # fmt: skip
    parts = [layers]
    if plan.candidates[0].divergence is not None:
        parts.append(render(
            [Column("without layers", left=True), Column("score", ".3f"), Column("mean KLD", ".5f"), Column("±", ".5f"),
             Column("PPL", ".3f")],
            [[ranges(c.layers), c.score, d.kld.value, d.kld.error, d.ppl.value]
             for c in plan.candidates if (d := c.divergence) is not None],
        ))  # fmt: skip
    ways = [way for way in (plan.pruned, plan.harder) if way is not None]
    if ways[0].plan.nbytes:
        columns = [Column("way", left=True), Column("MiB", ".2f"), Column("bpw", ".4f")]
        columns += [Column("mean KLD", ".5f"), Column("±", ".5f")] if ways[0].divergence else []
        parts.append(render(columns, [_way(way)[: len(columns)] for way in ways]))
    return "\n\n".join([*parts, *([plan.why_not] if plan.why_not else [])])


def as_json(plan: PrunePlan) -> dict[str, Any]:
    """The same for programs."""
    from dataclasses import asdict

    ways = {"pruned": plan.pruned, "harder": plan.harder}
    return {
        "prune_layers": list(plan.chosen),
        "layers": [{k: _plain(v) for k, v in asdict(row).items()} for row in plan.layers],
        "candidates": [
            {"layers": list(c.layers), "score": c.score, **_measured(c.divergence)} for c in plan.candidates
        ],
        "ways": {name: way and {"bytes": way.plan.nbytes, **_measured(way.divergence)} for name, way in ways.items()},
        "why_not": plan.why_not or None,
    }


def _plain(value: Any) -> Any:
    """The value as JSON knows it: no NaN, no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _measured(found: Divergence | None) -> dict[str, float | None]:
    """The divergence by the names that `gguftool kld` gives its figures."""
    if found is None:
        return {"kld": None, "kld_error": None}
    return {"kld": found.kld.value, "kld_error": found.kld.error}


def _way(way: Way) -> list[Any]:
    kld = way.divergence.kld if way.divergence else None
    return [way.name, way.plan.nbytes / 2**20, way.plan.bpw, kld and kld.value, kld and kld.error]


def _protect(text: str) -> tuple[int, int]:
    first, comma, last = text.partition(",")
    if not first.strip().isdigit() or (comma and not last.strip().isdigit()):
        raise UsageError(f"--protect {text}: give two numbers, layers at the beginning and at the end, such as 1,1")
    return int(first), int(last) if comma else int(first)
