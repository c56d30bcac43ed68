"""What a run will cost: the speed of the encoders here and now, and the memory."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from gguftool.format.quanttypes import QuantType, type_by_name
from gguftool.plan.moves import Piece, Plan
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
    peak = _BASE_MEMORY + min(max_buffer, threads * task) + sum(len(v.raw) for _, v in plan.metadata.entries())
    if not work:
        return Estimate(copied / _COPY_SPEED, peak)
    from gguftool.codecs import dispatch  # a plain copy has no use for kernels

    unknown = {source.name for source, _, _ in work if not dispatch.can_decode(source)}
    unknown |= {target.name for _, target, _ in work if not dispatch.can_encode(target)}
    if unknown:
        return Estimate(None, peak, tuple(sorted(unknown)))
    busy = sum(n / _speed(*key, objective, effort) for key, n in work.items())
    return Estimate(busy / threads + copied / _COPY_SPEED, peak)


def _task_bytes(piece: Piece, target: QuantType) -> int:
    source = piece.source
    n_rows = min(max(1, TASK_ELEMENTS // source.n_cols), source.rows_per_matrix)
    return n_rows * (source.type.row_nbytes(source.n_cols) + target.row_nbytes(piece.n_cols))


def _speed(source: QuantType, target: QuantType, weighted: bool, objective: str | None, effort: str) -> float:
    """Elements per second of one thread, measured on heavy-tailed rows."""
    import numpy as np

    from gguftool.codecs.dispatch import backend, can_encode, encode, prepare_importance, transcode

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
