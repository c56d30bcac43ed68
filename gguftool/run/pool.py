"""Worker threads over the tasks of one run, and what the main thread does meanwhile: the journal and the progress."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gguftool.plan.moves import Move, Plan
from gguftool.run.journal import Done, Journal
from gguftool.run.tasks import Task
from gguftool.run.work import Job, Scratch, Stopped, run_task

#: Seconds between two groups of records, and that many times what writing the last one took, if that is more.
_EVERY = 3.0
_SHARE = 10
#: How many tasks ahead of all workers the system is asked to fetch from a cold source.
_AHEAD = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, in bytes of the source. ``move`` is set when tensor ``index`` of the plan has been finished."""

    done_bytes: int
    total_bytes: int
    index: int = 0
    move: Move | None = None


class Log:
    """Groups finished tasks, forces their bytes to disk, then records them."""

    def __init__(self, journal: Journal, outputs: Sequence[int], sync: bool) -> None:
        self._journal, self._outputs, self._sync = journal, outputs, sync
        self._waiting: list[Done] = []
        self._due = time.monotonic() + _EVERY

    def add(self, record: Done) -> None:
        self._waiting.append(record)

    def flush_when_due(self) -> None:
        """Writes the waiting group if it is time; at most a tenth of the time goes into forcing bytes to disk."""
        if self._waiting and time.monotonic() >= self._due:
            begin = time.monotonic()
            self.flush()
            end = time.monotonic()
            self._due = end + max(_EVERY, _SHARE * (end - begin))

    def flush(self) -> None:
        """Writes the waiting group now."""
        if not self._waiting:
            return
        for fd in self._outputs:
            os.fdatasync(fd) if hasattr(os, "fdatasync") else os.fsync(fd)
        self._journal.append(self._waiting)
        self._remember()

    def close(self) -> None:
        """Takes the last group into account without writing it: the run is about to be completed."""
        self._remember()

    def _remember(self) -> None:
        self._journal.done.update({record.task: record for record in self._waiting})
        self._waiting = []


class Meter:
    """Counts source bytes and finished tensors, and tells the caller, tensors in the plan's order."""

    def __init__(
        self,
        plan: Plan,
        tasks: Sequence[Task],
        done: Mapping[int, Done],
        tell: Callable[[Progress], None] | None,
    ) -> None:
        self._moves, self._tell = plan.moves, tell
        self._order = [task.move for task in tasks]
        self._bytes = [_source_bytes(plan, task) for task in tasks]
        self._open = [0] * len(plan.moves)
        for task in tasks:
            self._open[task.move] += 1
        self._sequence = list(dict.fromkeys(self._order))
        empty = sorted(set(range(len(plan.moves))) - set(self._sequence))
        self._sequence = sorted([*self._sequence, *empty])
        self._next = 0
        self.total = sum(self._bytes)
        self.done = 0
        for number in done:
            self._count(number)

    @property
    def percent(self) -> float:
        return 100 * self.done / self.total if self.total else 100.0

    def step(self, task: int) -> None:
        """One more task is done."""
        self._count(task)
        if self._tell:
            self._tell(Progress(self.done, self.total))
            self.announce()

    def announce(self) -> None:
        """Tells of every tensor that is finished and has not been told of."""
        while self._tell and self._next < len(self._sequence) and not self._open[self._sequence[self._next]]:
            index = self._sequence[self._next]
            self._next += 1
            self._tell(Progress(self.done, self.total, index, self._moves[index]))

    def _count(self, task: int) -> None:
        self.done += self._bytes[task]
        self._open[self._order[task]] -= 1


def _source_bytes(plan: Plan, task: Task) -> int:
    if task.copy:
        return task.stop - task.start
    source = plan.moves[task.move].pieces[task.piece].source
    return (task.stop - task.start) * source.type.row_nbytes(source.n_cols)


def run_all(job: Job, tasks: Sequence[Task], threads: int, log: Log, meter: Meter) -> None:
    """Does every task, on ``threads`` worker threads.

    The first failure stops all workers at their next bite and is raised; so is KeyboardInterrupt. Either way, what was
    finished is recorded.
    """
    results: queue.SimpleQueue[Done | BaseException] = queue.SimpleQueue()
    feed = _Feed(tasks, threads + _AHEAD)
    workers = [threading.Thread(target=_work, args=(job, feed, results), name=f"gguftool-{n}") for n in range(threads)]
    meter.announce()
    try:
        if tasks:
            for worker in workers:
                worker.start()
        left = len(tasks)
        while left:
            try:
                record = results.get(timeout=0.25)
            except queue.Empty:
                log.flush_when_due()
                continue
            if isinstance(record, BaseException):
                raise record
            left -= 1
            log.add(record)
            meter.step(record.task)
            log.flush_when_due()
        log.close()
    except BaseException:
        job.stop.set()
        _drain(workers, results, log)
        raise
    finally:
        job.stop.set()
        for worker in workers:
            if worker.ident is not None:
                worker.join()


def _drain(workers: Sequence[threading.Thread], results: queue.SimpleQueue[Done | BaseException], log: Log) -> None:
    """Waits for the workers, and records what they still finished, as far as the disk lets it."""
    for worker in workers:
        if worker.ident is not None:
            worker.join()
    while not results.empty():
        record = results.get()
        if isinstance(record, Done):
            log.add(record)
    with contextlib.suppress(OSError):
        log.flush()


class _Feed:
    """Tasks in order, each handed to one worker, with a look at those that come next."""

    def __init__(self, tasks: Sequence[Task], ahead: int) -> None:
        self._tasks, self._ahead = tasks, ahead
        self._numbers: Iterator[int] = iter(range(len(tasks)))
        self._lock = threading.Lock()

    def take(self) -> tuple[Task, Task | None] | None:
        """The next task and the one to fetch ahead; None when all are handed out."""
        with self._lock:
            number = next(self._numbers, None)
        if number is None:
            return None
        later = number + self._ahead
        return self._tasks[number], self._tasks[later] if later < len(self._tasks) else None


def _work(job: Job, feed: _Feed, results: queue.SimpleQueue[Done | BaseException]) -> None:
    scratch = Scratch()
    try:
        while not job.stop.is_set():
            taken = feed.take()
            if taken is None:
                return
            task, later = taken
            if later is not None:
                _fetch_ahead(job, later)
            results.put(run_task(job, task, scratch))
    except Stopped:
        return
    except BaseException as trouble:
        results.put(trouble)


def _fetch_ahead(job: Job, task: Task) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    source = job.plan.moves[task.move].pieces[task.piece].source
    width = 1 if task.copy else source.type.row_nbytes(source.n_cols)
    start = source.offset + task.start * width
    with contextlib.suppress(OSError):
        os.posix_fadvise(job.sources[source.shard], start, (task.stop - task.start) * width, os.POSIX_FADV_WILLNEED)
