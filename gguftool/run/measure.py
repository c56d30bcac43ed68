"""What a run will cost and what it did: speed of the encoders here and now, and the errors of what was written."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from gguftool.codecs.dispatch import backend, can_decode, can_encode, encode, prepare_importance, transcode
from gguftool.format.atomic import atomic_output
from gguftool.format.quanttypes import QuantType, type_by_name
from gguftool.plan.moves import Move, Piece, Plan
from gguftool.run.journal import Done
from gguftool.run.tasks import TASK_ELEMENTS

#: Bytes of the interpreter with numpy and the compiled kernels.
_BASE_MEMORY = 70 << 20
#: Bytes per second of a plain copy from and to the page cache: what a disk adds cannot be known beforehand.
_COPY_SPEED = 2e9
_SAMPLE_ROWS, _SAMPLE_COLS = 8, 4096


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will take. ``seconds`` is None where a type has no encoder (``unknown`` names them)."""

    seconds: float | None
    peak_bytes: int
    unknown: tuple[str, ...] = ()


def estimate(
    plan: Plan, threads: int, max_buffer: int, *, objective: str | None = None, effort: str = "default"
) -> Estimate:
    """Time and peak memory of a run, from a sample of some milliseconds per pair of types; disks not counted."""
    work: dict[tuple[QuantType, QuantType, bool], int] = {}
    copied = 0
    task = 0
    for move in plan.moves:
        if move.copied:
            copied += move.nbytes
            continue
        for piece in move.pieces:
            key = (piece.source.type, move.type, piece.importance is not None)
            work[key] = work.get(key, 0) + piece.n_rows * piece.n_cols
            task = max(task, _task_bytes(piece, move.type))
    unknown = sorted(
        {
            t.name
            for source, target, _ in work
            for t in (source, target)
            if not (can_decode(t) if t is source else can_encode(t))
        }
    )
    peak = _BASE_MEMORY + min(max_buffer, threads * task) + sum(len(v.raw) for _, v in plan.metadata.entries())
    if unknown:
        return Estimate(None, peak, tuple(unknown))
    busy = sum(n / _speed(*key, objective, effort) for key, n in work.items())
    return Estimate(busy / threads + copied / _COPY_SPEED, peak)


def _task_bytes(piece: Piece, target: QuantType) -> int:
    source = piece.source
    n_rows = min(max(1, TASK_ELEMENTS // source.n_cols), source.rows_per_matrix)
    return n_rows * (source.type.row_nbytes(source.n_cols) + target.row_nbytes(piece.n_cols))


def _speed(source: QuantType, target: QuantType, weighted: bool, objective: str | None, effort: str) -> float:
    """Elements per second of one thread, measured on heavy-tailed rows."""
    rng = np.random.default_rng(1)
    rows = rng.standard_t(5, (_SAMPLE_ROWS, _SAMPLE_COLS)).astype(np.float32) * np.float32(0.02)
    weights = prepare_importance(rng.lognormal(0, 1, _SAMPLE_COLS))[0] if weighted else None
    out = np.empty(_SAMPLE_ROWS * target.row_nbytes(_SAMPLE_COLS), np.uint8)
    if can_encode(source):
        data, kind = encode(rows, source), source
    else:
        data, kind = rows.view(np.uint8), type_by_name("f32")
    best = math.inf
    for _ in range(1 if backend() == "numba" else 2):
        begin = time.perf_counter()
        transcode(data, kind, target, _SAMPLE_ROWS, _SAMPLE_COLS, weights, out, objective=objective, effort=effort)
        best = min(best, time.perf_counter() - begin)
    return rows.size / max(best, 1e-9)


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One tensor of a finished run. Errors are None where bytes were copied or no errors were asked for.

    ``mse`` is the mean squared error, ``weighted_mse`` the mean weighted by the importances (as measured, zeros
    included), ``rel_wmse`` the weighted error over the weighted signal, ``sqnr_db`` 10 log10(signal / error).
    """

    name: str
    source_name: str
    shape: tuple[int, ...]
    source_type: str
    type: str
    wanted: str
    source_bytes: int
    bytes: int
    bpw: float
    importance: str
    unobserved: int
    mse: float | None = None
    weighted_mse: float | None = None
    rel_wmse: float | None = None
    sqnr_db: float | None = None


def tensor_rows(plan: Plan, sums: Sequence[Done] = ()) -> tuple[TensorRow, ...]:
    """One row per tensor of the plan, in its order, with errors where ``sums`` (same order) has them."""
    rows = []
    for number, move in enumerate(plan.moves):
        done = sums[number] if number < len(sums) else Done(number)
        rows.append(_row(move, done))
    return tuple(rows)


def _row(move: Move, done: Done) -> TensorRow:
    first = move.pieces[0]
    measured = done.count > 0
    return TensorRow(
        move.name,
        first.source.name,
        move.shape,
        first.source.type.name,
        move.type.name,
        move.wanted.name if move.wanted else "",
        sum(p.source.nbytes for p in move.pieces),
        move.nbytes,
        8 * move.nbytes / move.n_elements if move.n_elements else 0.0,
        first.importance or "",
        done.unobserved,
        done.error / done.count if measured else None,
        done.weighted_error / done.weight if measured and done.weight else None,
        done.weighted_error / done.weighted_signal if measured and done.weighted_signal else None,
        _sqnr(done) if measured else None,
    )


def _sqnr(done: Done) -> float:
    if done.error == 0:
        return math.inf
    return 10 * math.log10(done.signal / done.error) if done.signal else -math.inf


def write_report(path: Path, rows: Sequence[TensorRow]) -> None:
    """The rows as CSV, one line per tensor; the file appears whole or not at all."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow([f.name for f in fields(TensorRow)])
    for row in rows:
        values = asdict(row) | {"shape": "x".join(map(str, row.shape))}
        table.writerow(["" if v is None else v for v in values.values()])
    with atomic_output(path, overwrite=True) as file:
        file.write(text.getvalue().encode())
