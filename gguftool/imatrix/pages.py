"""Values of an importance matrix, read when they are asked for and checked as they come."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gguftool.errors import ImatrixError
from gguftool.imatrix.contents import Slot

#: Values looked at in one piece when a whole file is walked: 4 MiB of it.
STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class BadValue:
    """A value that is no importance, and where it is."""

    name: str
    matrix: int
    column: int
    value: float


class Pages:
    """An open file that is read by position (``pread``): threads do not disturb each other, nothing is mapped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._fd)
        state = os.fstat(self._fd)
        self.size, self.mtime_ns = state.st_size, state.st_mtime_ns

    def read(self, offset: int, nbytes: int) -> bytes:
        """At most ``nbytes`` from ``offset``: fewer only where the file ends."""
        parts = []
        while nbytes > 0:
            part = os.pread(self._fd, nbytes, offset)
            if not part:
                break
            parts.append(part)
            offset, nbytes = offset + len(part), nbytes - len(part)
        return b"".join(parts)

    def floats(self, offset: int, count: int) -> npt.NDArray[np.float32]:
        """``count`` float32 from ``offset``, just as stored; ImatrixError if the file ends before."""
        raw = self.read(offset, 4 * count)
        if len(raw) < 4 * count:
            raise ImatrixError(self.path, "the file became shorter while it was open", offset)
        return np.frombuffer(raw, "<f4").astype(np.float32, copy=False)

    def sums(self, slot: Slot, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Values ``start:stop`` of an entry as stored, all of them finite and not negative.

        ImatrixError with tensor, matrix and column of the first that is not.
        """
        found = self._without_dropped(slot, self.floats(slot.sums_at + 4 * start, stop - start), start)
        if found.size and not (found.min() >= 0 and found.max() < math.inf):
            first = int(np.argmin((found >= 0) & (found < math.inf)))
            self._refuse(slot, start + first, slot.sums_at, float(found[first]), "a sum of squares")
        return found

    def signed(self, slot: Slot, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Signed sums ``start:stop`` of an entry that has them, all finite; else ImatrixError as for ``sums``."""
        assert slot.signed_at is not None
        found = self._without_dropped(slot, self.floats(slot.signed_at + 4 * start, stop - start), start)
        finite = np.isfinite(found)
        if not finite.all():
            first = int(np.argmin(finite))
            self._refuse(slot, start + first, slot.signed_at, float(found[first]), "a sum")
        return found

    def bad_values(self, slot: Slot) -> Iterator[BadValue]:
        """The first value of every matrix that ``sums`` or ``signed`` would refuse; reads one matrix at a time."""
        for matrix in range(slot.n_mat):
            start = matrix * slot.n_cols
            sums = self.floats(slot.sums_at + 4 * start, slot.n_cols)
            good = (sums >= 0) & (sums < math.inf)
            if slot.signed_at is not None and good.all():
                sums = self.floats(slot.signed_at + 4 * start, slot.n_cols)
                good = np.isfinite(sums)
            if not good.all():
                column = int(np.argmin(good))
                yield BadValue(slot.name, matrix, column, float(sums[column]))

    def _without_dropped(self, slot: Slot, found: npt.NDArray[np.float32], start: int) -> npt.NDArray[np.float32]:
        if not slot.dropped:
            return found
        matrices = np.arange(start, start + found.size) // slot.n_cols
        return np.where(np.isin(matrices, list(slot.dropped)), np.float32(0), found)

    def _refuse(self, slot: Slot, index: int, at: int, value: float, what: str) -> None:
        matrix, column = divmod(index, slot.n_cols)
        place = f"matrix {matrix}, column {column}" if slot.n_mat > 1 else f"column {column}"
        raise ImatrixError(
            self.path,
            f"tensor '{slot.name}', {place}: {value:g} is not {what}: collect it again, or leave this tensor out",
            at + 4 * index,
        )

    def digest(self) -> str:
        """sha256 of the whole file, as hex digits."""
        state, at = sha256(), 0
        while part := self.read(at, 4 * STEP):
            state.update(part)
            at += len(part)
        return state.hexdigest()


def pieces(slot: Slot) -> Iterator[tuple[int, int]]:
    """(start, stop) ranges over the values of an entry, none larger than STEP."""
    for start in range(0, slot.n_values, STEP):
        yield start, min(start + STEP, slot.n_values)
