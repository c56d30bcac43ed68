"""Doing a prepared run at a terminal: the dry run's table, signals, progress, the last lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from gguftool.cli.progress import ne, shown, unpacked_to
from gguftool.plan.mainline import Replacement
from gguftool.plan.moves import Move, Plan
from gguftool.run.report import TensorRow
from gguftool.show.tables import Column, printable, render
from gguftool.verbs.rewrite import Prepared, Result

_MIB = 1 << 20
_GIB = 1 << 30


def size_line(nbytes: int, bpw: float) -> str:
    """``12.069 GiB (4.398 BPW)``."""
    return f"{nbytes / _GIB:.3f} GiB ({bpw:.3f} BPW)"


def describe(prepared: Prepared, *, as_json: bool) -> None:
    """Prints what the run would write and what stands in its way; exit status 0, whatever it is."""
    plan = prepared.plan
    if as_json:
        click.echo(json.dumps(_described(prepared), indent=2))
        return
    for number, move in enumerate(plan.moves):
        click.echo(printable(_planned_line(number, len(plan.moves), move)))
    for line in _fallback_lines(prepared):
        click.echo(line)
    _say(prepared.warnings, "warning")
    _say(prepared.problems, "would be refused")
    _replaced(prepared)
    source = sum(r.source_bytes for r in prepared.rows())
    click.echo(f"source: {source / _MIB:.2f} MiB in {len(plan.moves)} tensors that are kept")
    click.echo(_cost_line(prepared))
    click.echo(size_line(plan.nbytes, plan.bpw))


def run(prepared: Prepared, *, as_json: bool) -> None:
    """Does the run: warnings before, progress meanwhile, size and bits per weight after."""
    if not prepared.problems:
        _say(prepared.warnings, "warning")
        if not as_json:
            for line in _fallback_lines(prepared):
                click.echo(line)
            _replaced(prepared)
            click.echo(_cost_line(prepared))
    with shown(len(prepared.plan.moves), as_json) as step:
        result = prepared.run(step)
    if as_json:
        click.echo(json.dumps(_finished(result), indent=2))
        return
    if result.resumed:
        click.echo(f"resumed: {result.resumed} of {result.n_tasks} pieces of work had been done before")
    if result.unobserved:
        touched = sum(1 for row in result.rows if row.unobserved)
        click.echo(f"{result.unobserved} importance blocks of {touched} tensors were never observed and fitted evenly")
    click.echo(f"{printable(str(result.path))}: {size_line(result.nbytes, result.bpw)} in {result.seconds:.1f} s")


def _say(lines: Any, kind: str) -> None:
    for line in lines:
        click.echo(f"{kind}: {printable(line)}", err=True)


def _planned_line(number: int, total: int, move: Move) -> str:
    source = move.pieces[0].source
    was = f" (was {source.name})" if source.name != move.name else ""
    head = f"[{number + 1:4d}/{total:4d}] {move.name + was:<36} - [{ne(move)}], type = {source.type.name:>6}, "
    if move.copied:
        return head + f"size = {move.nbytes / _MIB:8.2f} MiB{unpacked_to(move)}"
    before = sum(p.n_rows * p.n_cols for p in move.pieces) / max(1, math.prod(source.shape)) * source.nbytes
    wanted = f" for {move.replaces.name}" if move.replaces else ""
    wanted += f", {move.wanted.name} does not fit" if move.wanted else ""
    return head + f"size = {before / _MIB:8.2f} MiB -> {move.nbytes / _MIB:8.2f} MiB ({move.type.name}{wanted})"


def _fallback_lines(prepared: Prepared) -> Iterator[str]:
    """How many tensors got another type than was wanted, and what that costs."""
    costs = prepared.fallback_bpw
    groups: dict[tuple[str, str], list[float]] = {}
    for move in prepared.plan.moves:
        if move.wanted is not None:
            groups.setdefault((move.wanted.name, move.type.name), []).append(costs[move.name])
    for (wanted, got), bpw in groups.items():
        yield f"fallback: {len(bpw)} tensors get {got} because {wanted} does not fit their rows: {sum(bpw):+.4f} BPW"


def _replaced(prepared: Prepared) -> None:
    """A table of the types that made way for llama.cpp's, and what that does to the size."""
    rows: list[list[Any]] = [
        [r.wished.name, r.type.name, r.n_tensors, r.nbytes_wished / _MIB, r.nbytes / _MIB, *_bpw_of(r)]
        for r in prepared.replaced
    ]
    if not rows:
        return
    plan = prepared.plan
    wished = plan.nbytes + sum(r.nbytes_wished - r.nbytes for r in prepared.replaced)
    bpw = [8 * n / plan.n_elements for n in (wished, plan.nbytes)]
    rows.append(["whole model", "", len(plan.moves), wished / _MIB, plan.nbytes / _MIB, *bpw])
    sizes = [
        Column("MiB before", ".2f"),
        Column("MiB after", ".2f"),
        Column("BPW before", ".3f"),
        Column("BPW after", ".3f"),
    ]
    click.echo(render([Column("ik_llama.cpp"), "llama.cpp", Column("tensors"), *sizes], rows))


def _bpw_of(r: Replacement) -> list[float]:
    return [8 * n / max(1, r.n_elements) for n in (r.nbytes_wished, r.nbytes)]


def _replaced_data(rows: Sequence[Replacement]) -> list[dict[str, Any]]:
    return [asdict(r) | {"wished": r.wished.name, "type": r.type.name} for r in rows]


def _cost_line(prepared: Prepared) -> str:
    cost = prepared.estimate()
    memory = f"{cost.peak_bytes / _MIB:.0f} MiB of memory"
    if cost.seconds is None:
        return f"estimate: {memory}; time unknown, no encoder yet for {', '.join(cost.unknown)}"
    return f"estimate: {_duration(cost.seconds)} on {prepared.threads} threads (disk not counted), {memory}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _row(row: TensorRow) -> dict[str, Any]:
    data = asdict(row) | {"shape": list(row.shape)}
    return {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in data.items()}


def _totals(plan: Plan) -> dict[str, Any]:
    return {"bytes": plan.nbytes, "elements": plan.n_elements, "bpw": plan.bpw}


def _described(prepared: Prepared) -> dict[str, Any]:
    cost = prepared.estimate()
    return {
        "output": str(prepared.dst),
        **_totals(prepared.plan),
        "problems": prepared.problems,
        "warnings": list(prepared.warnings),
        "fallback_bpw": dict(prepared.fallback_bpw),
        "replaced": _replaced_data(prepared.replaced),
        "estimate": {"seconds": cost.seconds, "peak_bytes": cost.peak_bytes},
        "tensors": [_row(row) for row in prepared.rows()],
    }


def _finished(result: Result) -> dict[str, Any]:
    return {
        "paths": [str(p) for p in result.paths],
        "bytes": result.nbytes,
        "file_bytes": result.file_bytes,
        "bpw": result.bpw,
        "unobserved": result.unobserved,
        "resumed": result.resumed,
        "seconds": result.seconds,
        "warnings": list(result.warnings),
        "replaced": _replaced_data(result.replaced),
        "tensors": [_row(row) for row in result.rows],
    }
