"""One task of a run, done: bytes copied here, rows converted by ``convert``, which brings the kernels along."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gguftool.errors import FormatError, GGUFToolError
from gguftool.plan.moves import Piece, Plan
from gguftool.run.journal import Done
from gguftool.run.tasks import COPY_BYTES, Task

if TYPE_CHECKING:
    from gguftool.run.convert import WeightCache


#: The kernel can share whole pages between files, or move them; where source and target lie differently in theirs it
#: copies more slowly than we do, who stay within a core's cache.
_PAGE = 1 << 12
_HAND_BYTES = 1 << 20


@dataclass
class Job:
    """What every task needs: open files, importances, and how to encode. ``stop`` makes workers give up early."""

    plan: Plan
    sources: Sequence[int]
    outputs: Sequence[int]
    weights: WeightCache | None
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
        self._buffers: dict[str, bytearray] = {}

    def take(self, name: str, nbytes: int) -> memoryview:
        """``nbytes`` of the buffer of that name; its contents are whatever was left there."""
        found = self._buffers.get(name)
        if found is None or len(found) < nbytes:
            self._buffers.pop(name, None)
            found = self._buffers[name] = bytearray(nbytes)
        return memoryview(found)[:nbytes]


def run_task(job: Job, task: Task, scratch: Scratch) -> Done:
    """Does one task: its bytes are in the output file afterwards, not yet forced to disk.

    Raises FormatError when the source is shorter than it was, CodecError naming tensor, row and column for values
    that cannot be encoded, OSError from the disk.
    """
    if task.copy:
        _copy_bytes(job, task, scratch)
        return Done(task.index)
    from gguftool.run.convert import convert_rows

    return convert_rows(job, task, scratch)


def read_piece(job: Job, piece: Piece, offset: int, view: memoryview) -> None:
    """Fills ``view`` with bytes of a piece's source tensor from ``offset`` on; FormatError where the file ends."""
    fd = job.sources[piece.source.shard]
    start = piece.source.offset + offset
    while view:
        try:
            got = os.preadv(fd, [view], start)
        except OSError as trouble:  # say which file: the kernel only knows a number
            raise OSError(trouble.errno, trouble.strerror, job.plan.sources[piece.source.shard].path) from None
        if got == 0:
            raise _too_short(job, piece, start)
        start += got
        view = view[got:]


def write_at(fd: int, view: memoryview, offset: int) -> None:
    """Writes all of ``view``."""
    while view:
        put = os.pwrite(fd, view, offset)
        offset += put
        view = view[put:]


def _copy_bytes(job: Job, task: Task, scratch: Scratch) -> None:
    piece = job.plan.moves[task.move].pieces[task.piece]
    source, target = job.sources[piece.source.shard], job.outputs[task.file]
    at, to = piece.source.offset + task.start, task.offset
    left = task.stop - task.start
    step = _by_kernel if (at - to) % _PAGE == 0 else _by_hand
    while left:
        if job.stop.is_set():
            raise Stopped
        try:
            moved = step(job, source, target, left, at, to, scratch)
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


def _by_kernel(job: Job, source: int, target: int, nbytes: int, at: int, to: int, scratch: Scratch) -> int:
    if not hasattr(os, "copy_file_range"):
        return 0
    return os.copy_file_range(source, target, min(nbytes, COPY_BYTES), at, to)


def _by_hand(job: Job, source: int, target: int, nbytes: int, at: int, to: int, scratch: Scratch) -> int:
    buffer = scratch.take("source", min(nbytes, max(min(job.buffer_bytes, _HAND_BYTES), 1 << 16)))
    got = os.preadv(source, [buffer], at)
    write_at(target, buffer[:got], to)
    return got


def _too_short(job: Job, piece: Piece, offset: int) -> GGUFToolError:
    return FormatError(
        job.plan.sources[piece.source.shard].path,
        f"the file ends inside tensor '{piece.source.name}': it was cut short while it was being read",
        offset,
    )
