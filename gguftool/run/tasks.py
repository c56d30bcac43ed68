"""The work of a plan cut on a fixed grid.

The grid depends on the plan alone: threads and buffer sizes change who does a task and in how many bites, never where
it begins. A task never straddles two importance vectors (two experts) or a group of interleaved rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gguftool.plan.layout import OutputFile
from gguftool.plan.moves import Move, Plan, Range

#: Elements per task: 4 MB of F16, some tens of milliseconds of work.
TASK_ELEMENTS = 1 << 21
#: Bytes per task of a plain copy.
COPY_BYTES = 1 << 26


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
