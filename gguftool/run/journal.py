"""What of an unfinished output is already safe on disk: a file beside it that outlives a kill at any moment.

Layout: a line of JSON (the key: everything the output's bytes depend on) closed by the CRC of that JSON, then fixed
records of one finished task each, closed by a CRC too. A task is recorded only after its bytes were forced to disk, so
whatever the journal says is true; a torn tail is cut off. The file is locked while a process writes the output.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gguftool.errors import JournalError

_MAGIC = b"gguftool journal 1 "
_RECORD = struct.Struct("<I6dqI")
_CRC = struct.Struct("<I")
#: In place of a task's number: all tasks are done and the files are being renamed.
_RENAMING = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Done:
    """One finished task, with its share of the error sums (all 0 where they were not asked for).

    ``weight`` is the sum of the importances over the task's elements, ``unobserved`` the number of blocks that no
    token ever reached.
    """

    task: int
    weighted_error: float = 0.0
    weighted_signal: float = 0.0
    error: float = 0.0
    signal: float = 0.0
    weight: float = 0.0
    count: float = 0.0
    unobserved: int = 0

    def __add__(self, other: Done) -> Done:
        return Done(
            self.task,
            self.weighted_error + other.weighted_error,
            self.weighted_signal + other.weighted_signal,
            self.error + other.error,
            self.signal + other.signal,
            self.weight + other.weight,
            self.count + other.count,
            self.unobserved + other.unobserved,
        )


class Journal:
    """The journal of one output, open and locked.

    ``done`` holds the tasks recorded before, by number; ``renaming`` says that all were and only names are missing;
    ``new`` that there was no journal before.
    """

    def __init__(self, path: Path, fd: int, key: Mapping[str, str]) -> None:
        self.path = path
        self.done: dict[int, Done] = {}
        self.renaming = False
        self.new = False
        self._fd = fd
        self._key = key
        self._end = 0

    def reset(self) -> None:
        """Forget every task: the bytes that they stood for are gone."""
        self.done = {}
        self.renaming = False
        self._end = 0
        os.ftruncate(self._fd, 0)
        text = json.dumps(dict(self._key), sort_keys=True).encode()
        self._write(_MAGIC + text + b"\n" + _CRC.pack(zlib.crc32(text)), sync=True)

    def recover(self, data: bytes, start: int) -> None:
        """Take over the records behind the head, up to the first one that was not written whole."""
        while start + _RECORD.size <= len(data):
            *fields, crc = _RECORD.unpack_from(data, start)
            if crc != zlib.crc32(data[start : start + _RECORD.size - _CRC.size]):
                break
            record = Done(*fields)
            if record.task == _RENAMING:
                self.renaming = True
            else:
                self.done[record.task] = record
            start += _RECORD.size
        self._end = start
        os.ftruncate(self._fd, start)

    def append(self, records: Iterable[Done], *, sync: bool = True) -> None:
        """Write down finished tasks. Their bytes must be on disk already."""
        self._write(b"".join(_packed(r) for r in records), sync)

    def mark_renaming(self, *, sync: bool = True) -> None:
        """Write down that every byte is in place and only the names are missing."""
        self.renaming = True
        self._write(_packed(Done(_RENAMING)), sync)

    def remove(self) -> None:
        """Delete the journal: the output is complete, or given up."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the lock."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _write(self, data: bytes, sync: bool) -> None:
        while data:
            written = os.pwrite(self._fd, data, self._end)
            self._end += written
            data = data[written:]
        if sync:
            os.fsync(self._fd)


def open_journal(path: Path, key: Mapping[str, str], *, restart: bool = False) -> Journal:
    """The journal at ``path``, locked, made anew where there is none or its first line was never completed.

    ``key`` maps names that people know ("recipe and plan", "imatrix") to hashes. Raises JournalError when another
    process holds it, when it belongs to another key (naming what differs) and ``restart`` is not set, or when the
    file is no journal at all.
    """
    fd = _open_locked(path)
    try:
        data = _read_all(fd)
        if data and not _MAGIC.startswith(data[: len(_MAGIC)]):
            raise JournalError(f"{path}: this file is in the way and is no journal of gguftool: move it")
        journal = Journal(path, fd, key)
        found = _parse_head(data)
        if found is not None and not restart:
            old, start = found
            differing = [name for name in {**key, **old} if old.get(name) != key.get(name)]
            if differing:
                raise JournalError(
                    f"{path}: an unfinished output is there, made with another {' and '.join(differing)}: finish that "
                    "run, or use --restart to give it up"
                )
            journal.recover(data, start)
        else:
            journal.new = not data
            journal.reset()
        return journal
    except BaseException:
        os.close(fd)
        raise


def is_renaming(path: Path) -> bool:
    """Whether a journal is there and says that only final names are missing: such names are then its own work."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    found = _parse_head(data) if data.startswith(_MAGIC) else None
    if found is None:
        return False
    records = (data[at : at + _RECORD.size] for at in range(found[1], len(data), _RECORD.size))
    return any(r == _packed(Done(_RENAMING)) for r in records)


def _open_locked(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise JournalError(f"{path}: another process is writing this output: wait for it or stop it") from None
        except BaseException:
            os.close(fd)
            raise
        # The one who held it before may have removed the file between our open and our lock.
        try:
            here = os.stat(path)
        except FileNotFoundError:
            here = None
        mine = os.fstat(fd)
        if here is not None and (here.st_ino, here.st_dev) == (mine.st_ino, mine.st_dev):
            return fd
        os.close(fd)


def _read_all(fd: int) -> bytes:
    chunks = []
    offset = 0
    while chunk := os.pread(fd, 1 << 20, offset):
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)


def _parse_head(data: bytes) -> tuple[dict[str, str], int] | None:
    """The key and where records begin; None for a head that was never completed."""
    end = data.find(b"\n")
    if end < 0 or len(data) < end + 1 + _CRC.size:
        return None
    text = data[len(_MAGIC) : end]
    if _CRC.unpack_from(data, end + 1)[0] != zlib.crc32(text):
        return None
    key: dict[str, str] = json.loads(text)
    return key, end + 1 + _CRC.size


def _packed(r: Done) -> bytes:
    body = _RECORD.pack(
        r.task, r.weighted_error, r.weighted_signal, r.error, r.signal, r.weight, r.count, r.unobserved, 0
    )[: -_CRC.size]
    return body + _CRC.pack(zlib.crc32(body))
