"""An importance matrix that is about to be written: converted, merged or repaired, its values made entry by entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gguftool.format.metadata import Metadata
from gguftool.imatrix.contents import CHUNK_SIZE, NO_METADATA
from gguftool.imatrix.file import Imatrix, ImatrixEntry


@dataclass(frozen=True, slots=True)
class Outline:
    """One entry without its values: ``counts`` int64 [n_mat], and whether it has signed sums."""

    name: str
    n_mat: int
    n_cols: int
    counts: npt.NDArray[np.int64]
    signed: bool = False

    def calls(self, chunk_size: int) -> int:
        """Chunks that the most used matrix needs, at least 1: what the older form calls the number of calls."""
        most = int(self.counts.max())
        rounded = 1 << most.bit_length() - 25 if most > 1 << 24 else 0  # what float32 may have added to a count
        return max(1, -((rounded - most) // chunk_size))


@dataclass(frozen=True, slots=True)
class Matrices:
    """Outlines sorted by the bytes of their names, ``read`` for the values of one, and what goes with them all."""

    outlines: tuple[Outline, ...]
    read: Callable[[str], ImatrixEntry]
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int
    extra: Metadata = NO_METADATA


def matrices_of(imatrix: Imatrix, chunk_size: int | None = None) -> Matrices:
    """The file as it is. ``chunk_size`` where it has none, 512 by default; chunks are counted if it has no number."""
    outlines = in_order(outline_of(imatrix, name) for name in imatrix.names)
    size = imatrix.chunk_size or chunk_size or CHUNK_SIZE
    chunks = imatrix.chunk_count if imatrix.chunk_count is not None else count_chunks(outlines, size)
    return Matrices(outlines, imatrix.entry, imatrix.datasets, chunks, size, imatrix.extra)


def outline_of(imatrix: Imatrix, name: str) -> Outline:
    """The outline of an entry of a file."""
    return Outline(name, *imatrix.shape(name), imatrix.counts(name), imatrix.has_signed(name))


def in_order(outlines: Iterable[Outline]) -> tuple[Outline, ...]:
    """Sorted by the bytes of their names, as llama-imatrix writes them."""
    return tuple(sorted(outlines, key=lambda outline: outline.name.encode()))


def count_chunks(outlines: Iterable[Outline], chunk_size: int) -> int:
    """Whole chunks in the most tokens that any matrix saw, llama-imatrix's rule."""
    return max((int(outline.counts.max()) // chunk_size for outline in outlines), default=0)
