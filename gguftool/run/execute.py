"""Carries a plan out: reads, converts and writes on some threads, safe against a kill at any moment.

Output grows as ``<name>.part`` beside its final name, at full size from the start, so that a full disk shows at once. A
journal says which tasks are on disk; the same call goes on where an earlier one stopped. When all bytes are there,
they are forced to disk and the files renamed, of several shards the first one last.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gguftool.errors import CodecError, FormatError, GGUFToolError, JournalError
from gguftool.format.atomic import sync_folder
from gguftool.plan.layout import OutputFile, lay_out
from gguftool.plan.moves import Plan, SourceFile
from gguftool.run import tasks
from gguftool.run.journal import Done, Journal, open_journal
from gguftool.run.outputs import Target, journal_path, targets
from gguftool.run.pool import Log, Meter, Progress, run_all
from gguftool.run.work import Job

if TYPE_CHECKING:
    from gguftool.run.convert import ImatrixValues, WeightCache

#: Memory for rows in flight, all threads together.
MAX_BUFFER = 256 << 20


class Interrupted(GGUFToolError):
    """The run was stopped from outside; what is done is kept and the message says how to go on."""


@dataclass(frozen=True)
class Outcome:
    """A finished run: files in order, their bytes, per-tensor sums in the plan's order, and what was found done."""

    paths: tuple[Path, ...]
    nbytes: int
    sums: tuple[Done, ...]
    resumed: int
    n_tasks: int
    seconds: float


@dataclass(frozen=True)
class Options:
    """How to work; none of it but objective and effort changes a byte of the output.

    ``threads`` None means all cores. ``sync`` False leaves the last bytes to the operating system's own time.
    ``overwrite`` False stops before the last step where a file came up under the output's name meanwhile.
    """

    threads: int | None = None
    max_buffer: int = MAX_BUFFER
    objective: str | None = None
    effort: str = "default"
    errors: bool = False
    restart: bool = False
    sync: bool = True
    progress: Callable[[Progress], None] | None = None
    overwrite: bool = True


def execute(plan: Plan, dst: Path, options: Options | None = None, imatrix: ImatrixValues | None = None) -> Outcome:
    """Writes the plan's output at ``dst`` and says what came of it.

    Raises JournalError when an unfinished output of another plan is in the way or another process writes it,
    FormatError when the source is no longer what was planned for, CodecError for values that cannot be encoded,
    Interrupted after Ctrl-C, and GGUFToolError for trouble with the disk. The last two leave the work done so far in
    place, and the same call resumes it.
    """
    options = options or Options()
    begin = time.monotonic()
    files = lay_out(plan)
    places = targets(dst, plan, len(files))
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(_opened(s)) for s in plan.sources]
        key = _key(plan, options, imatrix)
        journal = stack.enter_context(_journal(journal_path(places), key, options.restart))
        run = _Run(plan, options, files, places, sources, journal)
        if journal.renaming and not run.complete():
            journal.reset()  # what was finished has been moved or replaced since
        if not journal.renaming:
            run.prepare(stack)
            run.work(imatrix)
        run.finish()
    paths = tuple(p.final for p in places)
    nbytes = sum(f.size for f in files)
    return Outcome(paths, nbytes, run.sums(), run.resumed, len(run.tasks), time.monotonic() - begin)


def _key(plan: Plan, options: Options, imatrix: ImatrixValues | None) -> dict[str, str]:
    source = hashlib.sha256(repr([(s.size, s.mtime_ns, s.header_sha256) for s in plan.sources]).encode()).hexdigest()
    return {
        "recipe or options": plan.hash,
        "source": source,
        "imatrix": imatrix.sha256 if imatrix is not None else "none",
        "version of the program": f"{_kernels(plan)}, grid {tasks.TASK_ELEMENTS} {tasks.COPY_BYTES}",
        "objective": options.objective or "default",
        "effort": options.effort,
    }


def _kernels(plan: Plan) -> str:
    if all(m.copied and not any(p.cuts_blocks for p in m.pieces) for m in plan.moves):
        return "none"
    from gguftool.codecs.dispatch import KERNELS_VERSION, backend

    return f"{KERNELS_VERSION} {backend()}"


@contextlib.contextmanager
def _opened(source: SourceFile) -> Iterator[int]:
    """A file of the source, open, after making sure that it is the one that was planned for."""
    fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if (found.st_size, found.st_mtime_ns) != (source.size, source.mtime_ns):
            raise FormatError(source.path, "the file changed after it was opened: start again")
        yield fd
    finally:
        os.close(fd)


def _journal(path: Path, key: dict[str, str], restart: bool) -> Journal:
    try:
        return open_journal(path, key, restart=restart)
    except OSError as trouble:
        with contextlib.suppress(OSError):
            if path.stat().st_size == 0:  # of our making, and of no use
                path.unlink()
        raise _disk_trouble(trouble, path, "nothing was written") from None


class _Run:
    """One execution: the main thread writes the journal and reports, workers do the tasks."""

    def __init__(
        self,
        plan: Plan,
        options: Options,
        files: tuple[OutputFile, ...],
        places: tuple[Target, ...],
        sources: Sequence[int],
        journal: Journal,
    ) -> None:
        self.plan, self.options, self.files, self.places = plan, options, files, places
        self.sources, self.journal = sources, journal
        self.tasks = tasks.cut(plan, files)
        self.outputs: list[int] = []
        self.resumed = 0

    def prepare(self, stack: contextlib.ExitStack) -> None:
        """Output files at full size with their headers; the journal emptied unless they were there already."""
        sizes = [(p.part, f.size) for p, f in zip(self.places, self.files, strict=True)]
        stray = [part for part, _ in sizes if part.exists()]
        if self.journal.new and stray and not self.options.restart:
            self.journal.remove()
            raise JournalError(
                f"{stray[0]}: an unfinished file without its journal is in the way: remove it, or use --restart"
            )
        fresh = self.options.restart or not all(_size(part) == size for part, size in sizes)
        if fresh:
            self.journal.reset()
        try:
            for place, file in zip(self.places, self.files, strict=True):
                fd = os.open(place.part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                stack.callback(os.close, fd)
                self.outputs.append(fd)
                if fresh:
                    os.ftruncate(fd, 0)
                    _reserve(fd, file.size)
                _write_all(fd, file.header)
        except OSError as trouble:
            if fresh:
                self.give_up()
            raise _disk_trouble(trouble, place.part, "nothing was written") from None

    def give_up(self) -> None:
        """Takes away what was begun: nothing in it is worth keeping."""
        for place in self.places:
            place.part.unlink(missing_ok=True)
        self.journal.remove()

    def work(self, imatrix: ImatrixValues | None) -> None:
        """All tasks that the journal does not know as done."""
        done = self.journal.done
        if self.options.errors:  # an earlier run may not have asked for them
            for task in self.tasks:
                if not task.copy and task.index in done and not done[task.index].count:
                    del done[task.index]
        self.resumed = len(done)
        todo = [t for t in self.tasks if t.index not in done]
        threads = max(1, min(self.options.threads or os.cpu_count() or 1, len(todo)))
        job = Job(
            self.plan,
            self.sources,
            self.outputs,
            None if imatrix is None else _weights(imatrix, 2 * threads + 2),
            max(1, self.options.max_buffer // threads),
            self.options.objective,
            self.options.effort,
            self.options.errors,
        )
        log = Log(self.journal, self.outputs, self.options.sync)
        meter = Meter(self.plan, self.tasks, done, self.options.progress)
        try:
            run_all(job, todo, threads, log, meter)
        except OSError as trouble:
            kept = "what is done is kept: the same command goes on from there"
            raise _disk_trouble(trouble, self.places[0].part, kept) from None
        except (CodecError, FormatError):
            self.give_up()  # only another source can help, and that would be another run
            raise
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped at {meter.percent:.0f} %: the same command goes on from there; to give it up, remove "
                f"{self.places[0].part} and {self.journal.path}"
            ) from None

    def complete(self) -> bool:
        """Whether every finished file is still there, under its final name or the one it grew under."""
        return all(
            _size(p.part if p.part.exists() else p.final) == f.size and _begins(p, f.header)
            for p, f in zip(self.places, self.files, strict=True)
        )

    def finish(self) -> None:
        """Everything forced to disk, then the final names, the first shard last, then the journal away."""
        try:
            self._finish(self.options.sync)
        except OSError as trouble:
            kept = "what is done is kept: the same command goes on from there"
            raise _disk_trouble(trouble, self.places[0].part, kept) from None

    def _finish(self, sync: bool) -> None:
        if not self.journal.renaming:
            self._check_sources()
        if sync:
            for fd in self.outputs:
                os.fsync(fd)
        if not self.journal.renaming:
            self._check_names()
            self.journal.mark_renaming(sync=sync)
        for place in reversed(self.places):
            if place.part.exists() or not place.final.exists():
                os.replace(place.part, place.final)
        if sync:
            with contextlib.suppress(OSError):  # some file systems cannot
                sync_folder(self.places[0].final.parent)
        self.journal.remove()

    def _check_sources(self) -> None:
        """FormatError when a source was written to while it was read: the output is a mixture then."""
        for fd, source in zip(self.sources, self.plan.sources, strict=True):
            found = os.fstat(fd)
            if (found.st_size, found.st_mtime_ns) != (source.size, source.mtime_ns):
                self.give_up()
                raise FormatError(source.path, "the file changed while it was being read: start again")

    def _check_names(self) -> None:
        """GGUFToolError when a file came up under a final name that nobody said may be overwritten."""
        taken = [p.final for p in self.places if os.path.lexists(p.final)]
        if taken and not self.options.overwrite:
            self.journal.append(self.journal.done.values())
            raise GGUFToolError(
                f"{taken[0]}: came into being while the run was going and is left alone: move it, or use --force, and "
                "give the same command again; nothing has to be done twice"
            )

    def sums(self) -> tuple[Done, ...]:
        """The records of all tasks added up per tensor."""
        total = [Done(n) for n in range(len(self.plan.moves))]
        for task in self.tasks:
            if (record := self.journal.done.get(task.index)) is not None:
                total[task.move] += record
        return tuple(total)


def _weights(imatrix: ImatrixValues, n_slices: int) -> WeightCache:
    from gguftool.run.convert import WeightCache

    return WeightCache(imatrix, n_slices)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _begins(place: Target, header: bytes) -> bool:
    with (place.part if place.part.exists() else place.final).open("rb") as file:
        return file.read(len(header)) == header


def _reserve(fd: int, size: int) -> None:
    """Takes the space now, where the system can: a disk that is too small is found before the work."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
            return
        except OSError as trouble:
            if trouble.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    os.ftruncate(fd, size)


def _write_all(fd: int, data: bytes) -> None:
    offset = 0
    while offset < len(data):
        offset += os.pwrite(fd, memoryview(data)[offset:], offset)


def _disk_trouble(trouble: OSError, path: Path, state: str) -> GGUFToolError:
    """The one line for a disk that is full or a file that may not grow: what happened, where, what is left."""
    if isinstance(trouble, BrokenPipeError):
        return Interrupted(f"stopped, nobody reads what is said of the progress any more; {state}")
    if trouble.errno in (errno.ENOSPC, errno.EDQUOT):
        return GGUFToolError(f"{path}: no space left on the disk: make room; {state}")
    if trouble.errno == errno.EFBIG:
        return GGUFToolError(f"{path}: the file would be larger than this system or its limits allow; {state}")
    return GGUFToolError(f"{trouble.filename or path}: {trouble.strerror or trouble}; {state}")
