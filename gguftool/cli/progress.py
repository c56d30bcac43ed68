"""Progress of a run: a bar on a terminal, one line per tensor in llama-quantize's shape everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from gguftool.plan.moves import Move
from gguftool.run.pool import Progress
from gguftool.show.tables import printable

_MIB = 1 << 20


@contextmanager
def shown(n_tensors: int, quiet: bool) -> Iterator[Callable[[Progress], None] | None]:
    """What to call after every task. Lines go to stdout, the bar to stderr; ``quiet`` gives None."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(n_tensors) as step:
            yield step
    else:
        yield lambda progress: _line(progress, n_tensors)


def _line(progress: Progress, n_tensors: int) -> None:
    if progress.move is not None:
        click.echo(printable(tensor_line(progress.index, n_tensors, progress.move)))


@contextmanager
def _bar(n_tensors: int) -> Iterator[Callable[[Progress], None]]:
    from tqdm import tqdm

    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, leave=False) as bar:

        def step(progress: Progress) -> None:
            if bar.total != progress.total_bytes:  # what an earlier run did is no speed of this one
                bar.total, bar.initial = progress.total_bytes, progress.done_bytes
                bar.n = progress.done_bytes
            if progress.move is not None:
                name = printable(progress.move.name)
                bar.set_description(f"[{progress.index + 1}/{n_tensors}] {name}", refresh=False)
            bar.update(progress.done_bytes - bar.n)

        yield step


def tensor_line(index: int, total: int, move: Move) -> str:
    """One tensor: ``[  1/ 111] name - [ ne0, ne1, ne2, ne3], type = f16, converting to q4_K .. size = ...``."""
    source = move.pieces[0].source
    head = f"[{index + 1:4d}/{total:4d}] {move.name:<36} - [{ne(move)}], type = {source.type.name:>6}, "
    if move.copied:
        return head + f"size = {move.nbytes / _MIB:8.3f} MiB{unpacked_to(move)}"
    before = sum(p.n_rows * p.n_cols for p in move.pieces) * source.nbytes / max(1, source.n_rows * source.n_cols)
    return head + f"converting to {move.type.name} .. size = {before / _MIB:8.2f} MiB -> {move.nbytes / _MIB:8.2f} MiB"


def unpacked_to(move: Move) -> str:
    """What a copied tensor's line says about rows that are taken apart: "" for a plain copy."""
    return "" if move.type == move.pieces[0].source.type else f", unpacked to {move.type.name}"


def ne(move: Move) -> str:
    """The four dimensions, the row first, as llama-quantize prints them."""
    sizes = [*reversed(move.shape), 1, 1, 1, 1][: max(4, len(move.shape))]
    return ", ".join(f"{size:5d}" for size in sizes)
