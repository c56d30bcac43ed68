"""The work of a plan cut on a fixed grid, and the function that does one cell of it.

The grid depends on the plan alone: threads and buffer sizes change who does a task and in how many bites, never where
it begins. A task never straddles two importance vectors (two experts) or a group of interleaved rows.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gguftool.codecs.dispatch import ErrorSums, decode, prepare_importance, transcode
from gguftool.errors import CodecError, FormatError, GGUFToolError
from gguftool.format.quanttypes import type_by_name
from gguftool.plan.layout import OutputFile
from gguftool.plan.moves import Move, Piece, Plan, Range
from gguftool.run.journal import Done

#: Elements per task: 4 MB of F16, some tens of milliseconds of work.
TASK_ELEMENTS = 1 << 21
#: Bytes per task of a plain copy.
COPY_BYTES = 1 << 26

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Task:
    """One cell: ``start`` and ``stop`` are rows of the source tensor, or bytes of it where ``copy`` is set.

    Its bytes go to ``offset`` of output ``file``. ``opens`` marks the first task of an importance vector.
    """

    index: int
    move: int
    piece: int
    start: int
    stop: int
    file: int
    offset: int
    copy: bool
    opens: bool = False


def cut(plan: Plan, files: Sequence[OutputFile]) -> list[Task]:
    """All tasks of a plan, in the order of the output."""
    tasks: list[Task] = []
    for number, file in enumerate(files):
        for move, offset in zip(file.moves, file.offsets, strict=True):
            for piece in range(len(plan.moves[move].pieces)):
                offset = _cut_piece(plan.moves[move], move, piece, number, offset, tasks)
    return tasks


def _cut_piece(move: Move, move_no: int, piece_no: int, file: int, offset: int, tasks: list[Task]) -> int:
    piece = move.pieces[piece_no]
    source = piece.source
    if source.type == move.type and piece.columns is None:
        runs: tuple[Range, ...] = ((0, source.nbytes),)
        if piece.rows is not None:
            width = source.type.row_nbytes(source.n_cols)
            runs = tuple((start * width, stop * width) for start, stop in piece.rows)
        for start, stop in runs:
            for low in range(start, stop, COPY_BYTES):
                high = min(low + COPY_BYTES, stop)
                tasks.append(Task(len(tasks), move_no, piece_no, low, high, file, offset, True))
                offset += high - low
        return offset
    width = move.type.row_nbytes(piece.n_cols)
    group = max(move.type.rows_interleaved, source.type.rows_interleaved)
    step = max(1, TASK_ELEMENTS // source.n_cols // group) * group
    for start, stop in piece.row_runs():
        for low in range(start, stop, step):
            high = min(low + step, stop)
            tasks.append(Task(len(tasks), move_no, piece_no, low, high, file, offset, False, low == start))
            offset += (high - low) * width
    return offset


class ImatrixValues(Protocol):
    """What work asks of an importance matrix: the mean squares of one of an entry's ``n_mat`` matrices."""

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

    def __init__(self, imatrix: ImatrixValues | None, n_slices: int) -> None:
        self._imatrix = imatrix
        self._limit = n_slices
        self._lock = threading.Lock()
        self._slices: OrderedDict[tuple[object, ...], Weights] = OrderedDict()

    def of(self, piece: Piece, row: int) -> Weights | None:
        """The importances for a source row of a piece; None where it has none."""
        if piece.importance is None or self._imatrix is None:
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


@dataclass
class Job:
    """What every task needs: open files, importances, and how to encode. ``stop`` makes workers give up early."""

    plan: Plan
    sources: Sequence[int]
    outputs: Sequence[int]
    weights: WeightCache
    buffer_bytes: int
    objective: str | None = None
    effort: str = "default"
    errors: bool = False
    stop: threading.Event = field(default_factory=threading.Event)


class Stopped(Exception):
    """A worker gave up because the run is being stopped; never leaves the executor."""


class Scratch:
    """One worker's buffers, grown to what it needed most."""

    def __init__(self) -> None:
        self._buffers: dict[str, Bytes] = {}

    def take(self, name: str, nbytes: int) -> Bytes:
        """``nbytes`` of the buffer of that name; its contents are whatever was left there."""
        found = self._buffers.get(name)
        if found is None or found.size < nbytes:
            found = self._buffers[name] = np.empty(nbytes, np.uint8)
        return found[:nbytes]


def run_task(job: Job, task: Task, scratch: Scratch) -> Done:
    """Does one task: its bytes are in the output file afterwards, not yet forced to disk.

    Raises FormatError when the source is shorter than it was, CodecError naming tensor, row and column for values
    that cannot be encoded, OSError from the disk.
    """
    if task.copy:
        _copy_bytes(job, task, scratch)
        return Done(task.index)
    move = job.plan.moves[task.move]
    piece = move.pieces[task.piece]
    weights = job.weights.of(piece, task.start)
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
        _read(job, piece, low * src_width, source)
        out = scratch.take("target", n_rows * dst_width)
        try:
            part = _convert(job, move, piece, source, n_rows, weights, out)
        except CodecError as trouble:
            raise CodecError(f"{piece.source.name}, counting from its row {low}: {trouble}") from None
        _write(job.outputs[task.file], out, task.offset + (low - task.start) * dst_width)
        if part is not None:
            sums = part if sums is None else sums + part
    return _done(task, piece, sums, weights)


def _convert(
    job: Job, move: Move, piece: Piece, source: Bytes, n_rows: int, weights: Weights | None, out: Bytes
) -> ErrorSums | None:
    origin = piece.source
    src_type = origin.type
    if src_type == move.type and not piece.cuts_blocks:
        _gather(piece, source.reshape(n_rows, -1), out.reshape(n_rows, -1))
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
        objective=job.objective,
        effort=job.effort,
        importance=weights.raw if weights is not None and job.errors else None,
        errors=job.errors,
    )


def _gather(piece: Piece, source: Bytes, out: Bytes) -> None:
    """Moves the blocks of the kept columns together; [n_rows, bytes of a row] each."""
    kind = piece.source.type
    put = 0
    for start, stop in piece.columns or ():
        low, high = (edge // kind.block_size * kind.block_bytes for edge in (start, stop))
        out[:, put : put + high - low] = source[:, low:high]
        put += high - low


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


def _read(job: Job, piece: Piece, offset: int, into: Bytes) -> None:
    fd = job.sources[piece.source.shard]
    start = piece.source.offset + offset
    view = into.data
    while view:
        got = os.preadv(fd, [view], start)
        if got == 0:
            raise _too_short(job, piece, start)
        start += got
        view = view[got:]


def _write(fd: int, data: Bytes, offset: int) -> None:
    view = data.data
    while view:
        put = os.pwrite(fd, view, offset)
        offset += put
        view = view[put:]


def _copy_bytes(job: Job, task: Task, scratch: Scratch) -> None:
    piece = job.plan.moves[task.move].pieces[task.piece]
    source, target = job.sources[piece.source.shard], job.outputs[task.file]
    at, to = piece.source.offset + task.start, task.offset
    left = task.stop - task.start
    step = _by_kernel
    while left:
        if job.stop.is_set():
            raise Stopped
        try:
            moved = step(job, source, target, min(left, COPY_BYTES), at, to, scratch)
        except OSError:
            if step is _by_hand:
                raise
            step = _by_hand
            continue
        if moved == 0 and step is _by_kernel and os.fstat(source).st_size > at:
            step = _by_hand
            continue
        if moved == 0:
            raise _too_short(job, piece, at)
        at, to, left = at + moved, to + moved, left - moved


CopyStep = Callable[["Job", int, int, int, int, int, Scratch], int]


def _by_kernel(job: Job, source: int, target: int, nbytes: int, at: int, to: int, scratch: Scratch) -> int:
    if not hasattr(os, "copy_file_range"):
        return 0
    return os.copy_file_range(source, target, nbytes, at, to)


def _by_hand(job: Job, source: int, target: int, nbytes: int, at: int, to: int, scratch: Scratch) -> int:
    buffer = scratch.take("source", min(nbytes, max(job.buffer_bytes, 1 << 16)))
    got = os.preadv(source, [buffer.data], at)
    _write(target, buffer[:got], to)
    return got


def _too_short(job: Job, piece: Piece, offset: int) -> GGUFToolError:
    return FormatError(
        job.plan.sources[piece.source.shard].path,
        f"the file ends inside tensor '{piece.source.name}': it was cut short while it was being read",
        offset,
    )
