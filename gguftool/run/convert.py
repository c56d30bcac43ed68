"""Rows of one type made rows of another: the part of the work that needs numbers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gguftool.codecs.dispatch import ErrorSums, decode, prepare_importance, transcode
from gguftool.errors import CodecError
from gguftool.format.quanttypes import type_by_name
from gguftool.plan.moves import Move, Piece
from gguftool.plan.objectives import objective_for
from gguftool.run.journal import Done
from gguftool.run.tasks import Task
from gguftool.run.work import Job, Scratch, Stopped, read_piece, write_at

Bytes = npt.NDArray[np.uint8]


class ImatrixValues(Protocol):
    """What work asks of an importance matrix: which one it is, and one of an entry's ``n_mat`` matrices."""

    @property
    def sha256(self) -> str: ...
    def mean_squares(
        self, name: str, matrix: int | None = None, *, n_mat: int | None = None
    ) -> npt.NDArray[np.float64]: ...


@dataclass(frozen=True, slots=True)
class Weights:
    """Importances of one row: as an encoder takes them, and raw for the error sums."""

    prepared: npt.NDArray[np.float32]
    raw: npt.NDArray[np.float64]
    unobserved: int


class WeightCache:
    """Prepared importances of the slices in use, a few at a time, whatever the size of the imatrix."""

    def __init__(self, imatrix: ImatrixValues, n_slices: int) -> None:
        self._imatrix = imatrix
        self._limit = n_slices
        self._lock = threading.Lock()
        self._slices: OrderedDict[tuple[object, ...], Weights] = OrderedDict()

    def of(self, piece: Piece, row: int) -> Weights | None:
        """The importances for a source row of a piece; None where it has none."""
        if piece.importance is None:
            return None
        key = (piece.importance, piece.matrix_of(row), piece.source.n_cols, piece.columns)
        with self._lock:
            found = self._slices.get(key)
            if found is None:
                vector = self._imatrix.mean_squares(
                    piece.importance, piece.matrix_of(row), n_mat=piece.source.n_matrices
                )
                raw = np.ascontiguousarray(vector, dtype=np.float64)
                if piece.columns is not None:
                    raw = np.concatenate([raw[start:stop] for start, stop in piece.columns])
                prepared, unobserved = prepare_importance(raw)
                found = self._slices[key] = Weights(prepared, raw, unobserved)
                while len(self._slices) > self._limit:
                    self._slices.popitem(last=False)
            else:
                self._slices.move_to_end(key)
            return found


def convert_rows(job: Job, task: Task, scratch: Scratch) -> Done:
    """Does one task that is no plain copy; see ``work.run_task``."""
    move = job.plan.moves[task.move]
    piece = move.pieces[task.piece]
    weights = job.weights.of(piece, task.start) if job.weights is not None else None
    src_width = piece.source.type.row_nbytes(piece.source.n_cols)
    dst_width = move.type.row_nbytes(piece.n_cols)
    per_row = src_width + dst_width + (8 * piece.source.n_cols if piece.columns is not None else 0)
    group = max(move.type.rows_interleaved, piece.source.type.rows_interleaved)
    step = max(1, job.buffer_bytes // per_row // group) * group
    sums = None
    for low in range(task.start, task.stop, step):
        if job.stop.is_set():
            raise Stopped
        n_rows = min(step, task.stop - low)
        source = scratch.take("source", n_rows * src_width)
        read_piece(job, piece, low * src_width, source)
        out = scratch.take("target", n_rows * dst_width)
        try:
            part = _convert(job, move, piece, source, n_rows, weights, out)
        except CodecError as trouble:
            raise CodecError(f"{piece.source.name}, counting from its row {low}: {trouble}") from None
        write_at(job.outputs[task.file], out, task.offset + (low - task.start) * dst_width)
        if part is not None:
            sums = part if sums is None else sums + part
    return _done(task, piece, sums, weights)


def _convert(
    job: Job, move: Move, piece: Piece, raw: memoryview, n_rows: int, weights: Weights | None, space: memoryview
) -> ErrorSums | None:
    origin = piece.source
    src_type = origin.type
    source, out = np.frombuffer(raw, np.uint8), np.frombuffer(space, np.uint8)
    if src_type == move.type and not piece.cuts_blocks:
        _gather(piece, source.reshape(n_rows, -1), out.reshape(n_rows, -1))
        return None
    if piece.unpacks_to(move.type):
        from gguftool.codecs.unpack import unpack_rows

        np.copyto(out, unpack_rows(source.reshape(n_rows, -1), src_type, origin.n_cols).reshape(-1))
        return None
    if piece.columns is not None:
        rows = decode(source.reshape(n_rows, -1), src_type, origin.n_cols)
        kept = np.concatenate([rows[:, start:stop] for start, stop in piece.columns], axis=1)
        source, src_type = np.ascontiguousarray(kept, dtype=np.float32).reshape(-1).view(np.uint8), type_by_name("f32")
    return transcode(
        source,
        src_type,
        move.type,
        n_rows,
        piece.n_cols,
        None if weights is None else weights.prepared,
        out,
        objective=job.objective or objective_for(move.name, move.type),
        effort=job.effort,
        importance=weights.raw if weights is not None and job.errors else None,
        errors=job.errors,
    )


def _gather(piece: Piece, source: Bytes, out: Bytes) -> None:
    """Moves the blocks of the kept columns together, behind the head of their row; [n_rows, bytes of a row] each."""
    kind = piece.source.type
    put = kind.row_header
    out[:, :put] = source[:, :put]
    for start, stop in piece.columns or ():
        low, high = (kind.row_header + edge // kind.block_size * kind.block_bytes for edge in (start, stop))
        out[:, put : put + high - low] = source[:, low:high]
        put += high - low
    if kind.name == "q8_KV":  # whose head is the scale and the sum of the values
        out[:, 4:8] = out[:, 8:].view(np.int8).sum(axis=1, dtype="<i4")[:, None].view(np.uint8)


def _done(task: Task, piece: Piece, sums: ErrorSums | None, weights: Weights | None) -> Done:
    unobserved = weights.unobserved if weights is not None and task.opens else 0
    if sums is None:
        return Done(task.index, unobserved=unobserved)
    n_rows = task.stop - task.start
    weight = n_rows * (float(piece.n_cols) if weights is None else float(weights.raw.sum()))
    return Done(
        task.index,
        sums.weighted_error,
        sums.weighted_signal,
        sums.error,
        sums.signal,
        weight,
        float(sums.count),
        unobserved,
    )
