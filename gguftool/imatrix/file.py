"""Importance matrices: mean squares of what went into every weight matrix, read one tensor or one expert at a time.

A weight matrix W [n_rows, n_cols] was multiplied with activations x. For each column j an imatrix holds the sum of
x_j^2 over ``count`` tokens; their quotient, the mean square, says how much an error in column j matters. A tensor of
several matrices (experts) has one such vector and one count per matrix. Two file formats exist: ``legacy`` and
``container``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from gguftool.errors import ImatrixError
from gguftool.imatrix import aliases
from gguftool.imatrix.container import scan_gguf
from gguftool.imatrix.contents import Contents, Slot, several
from gguftool.imatrix.experts import experts_by_routers
from gguftool.imatrix.legacy import scan_legacy
from gguftool.imatrix.pages import BadValue, Pages, pieces

if TYPE_CHECKING:
    import pandas as pd

    from gguftool.format.metadata import Metadata
    from gguftool.imatrix.figures import TensorStatistics

_ROUNDING = 1e-4  # float32 sums of a million tokens, added one by one


@dataclass(frozen=True, slots=True)
class ImatrixEntry:
    """One entry: raw sums of squares float64 [n_mat, n_cols], tokens int64 [n_mat], signed sums if it has them."""

    name: str
    n_mat: int
    n_cols: int
    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    signed: npt.NDArray[np.float64] | None = None

    @property
    def mean_squares(self) -> npt.NDArray[np.float64]:
        """sums / counts, [n_mat, n_cols]; zeros for a matrix that no token reached."""
        return np.asarray(self.sums / np.maximum(self.counts, 1)[:, None] * (self.counts > 0)[:, None], np.float64)


class Imatrix:
    """An open importance matrix. Values are read when asked for; any number of threads may ask.

    ``names`` are in file order, ``format`` is "gguf" or "dat", ``warnings`` what opening it found odd. ``chunk_size``
    is None where the file does not say; counts then assume 512 tokens per chunk, which changes no mean.
    """

    def __init__(self, path: Path, pages: Pages, contents: Contents) -> None:
        self.path = path
        self._pages = pages
        self._contents = contents
        self._slots = dict(contents.slots)
        self._splits: dict[tuple[str, int], Slot] = {}
        self._sha256: str | None = None
        self._statistics: tuple[TensorStatistics, ...] | None = None

    @property
    def format(self) -> str:
        return self._contents.format

    @property
    def datasets(self) -> tuple[str, ...]:
        """What it was made from, oldest first."""
        return self._contents.datasets

    @property
    def chunk_count(self) -> int | None:
        return self._contents.chunk_count

    @property
    def chunk_size(self) -> int | None:
        return self._contents.chunk_size

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._contents.warnings

    @property
    def nextn_layers(self) -> int | None:
        """How many layers at the end of the model predict further tokens; None where the file does not say."""
        return self._contents.nextn_layers

    @property
    def ignored(self) -> tuple[str, ...]:
        """Tensors of the file that belong to no entry."""
        return self._contents.ignored

    @property
    def extra(self) -> Metadata:
        """Metadata of the file beyond those that every importance matrix has."""
        return self._contents.extra

    @property
    def n_figures(self) -> int:
        """Entries that come with figures computed when the file was written; they are never used."""
        return self._contents.n_figures

    def has_signed(self, name: str) -> bool:
        """Whether an entry has sums of x beside those of x^2."""
        return self._slots[name].signed_at is not None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._slots)

    @property
    def sha256(self) -> str:
        """Hash of the file's bytes as hex digits; the first time it is asked for, the file is read."""
        if self._sha256 is None:
            self._sha256 = self._pages.digest()
        return self._sha256

    def shape(self, name: str) -> tuple[int, int]:
        """(n_mat, n_cols) of an entry, no values read. KeyError if there is no such entry, here and below."""
        slot = self._slots[name]
        return slot.n_mat, slot.n_cols

    def counts(self, name: str) -> npt.NDArray[np.int64]:
        """Tokens that went through each matrix, int64 [n_mat]."""
        return self._slots[name].counts.copy()

    def tokens(self, name: str) -> int | None:
        """Tokens over all matrices of an entry; None in the older form, which keeps calls but not what each held."""
        return int(self._slots[name].counts.sum()) if self.format == "gguf" else None

    def lookup(self, name: str) -> tuple[str, str | None] | None:
        """(entry, note) for a tensor: its own entry and None, or one that saw the same input; None without either."""
        return aliases.lookup(name, self._slots)

    def entry(self, name: str) -> ImatrixEntry:
        """Everything about one entry. ImatrixError for values that cannot be sums, here and in ``mean_squares``."""
        slot = self._slots[name]
        sums = self._pages.sums(slot, 0, slot.n_values).astype(np.float64).reshape(slot.n_mat, slot.n_cols)
        sums *= slot.scale
        if slot.unit_is_filler:
            sums[slot.counts == 0] = 0
        signed = None
        if slot.signed_at is not None:
            signed = self._pages.signed(slot, 0, slot.n_values).astype(np.float64).reshape(slot.n_mat, slot.n_cols)
        return ImatrixEntry(name, slot.n_mat, slot.n_cols, sums, slot.counts.copy(), signed)

    def mean_squares(
        self, name: str, matrix: int | None = None, *, n_mat: int | None = None
    ) -> npt.NDArray[np.float64]:
        """Mean squares of one matrix, float64 [n_cols], or of all, [n_mat, n_cols]; zeros where no token came by.

        Only the bytes of what is asked for are read. ``n_mat`` cuts an entry that does not know its experts into that
        many; matrices that the older format filled with 1 then count as not reached.
        """
        slot = self._slots[name]
        if n_mat is not None and n_mat != slot.n_mat:
            slot = self._split(slot, n_mat)
        first, last = (0, slot.n_mat) if matrix is None else (matrix, matrix + 1)
        if not 0 <= first < last <= slot.n_mat:
            raise IndexError(f"matrix {matrix} of '{name}', which has {slot.n_mat}")
        found = self._pages.sums(slot, first * slot.n_cols, last * slot.n_cols).astype(np.float64)
        found = found.reshape(last - first, slot.n_cols)
        counts = slot.counts[first:last]
        if slot.scale != 1:
            found *= slot.scale
        found /= np.maximum(counts, 1)[:, None]
        found[counts == 0] = 0.0
        return found if matrix is None else found[0]

    def weights(self, name: str) -> npt.NDArray[np.float64]:
        """Mean squares of an entry, the weights of its columns' errors: float64 [n_mat, n_cols], one row per expert.

        Zeros for an expert that no token reached. As ``stats`` does, experts that the file does not tell apart are
        told apart by the width of the layer's router.
        """
        return self.mean_squares(name, n_mat=self.inferred_experts().get(name))

    def signed_means(self, name: str) -> npt.NDArray[np.float64] | None:
        """Means of the activations themselves, float64 [n_mat, n_cols], zeros where no token came by.

        None for an entry without signed sums, which only a fork of llama-imatrix writes, into files of the GGUF form.
        """
        slot = self._slots[name]
        if slot.signed_at is None:
            return None
        found = self._pages.signed(slot, 0, slot.n_values).astype(np.float64).reshape(slot.n_mat, slot.n_cols)
        found /= np.maximum(slot.counts, 1)[:, None]
        found[slot.counts == 0] = 0.0
        return found

    def raw_sums(self, name: str) -> npt.NDArray[np.float32]:
        """Sums of squares in the file's own precision, float32 [n_mat, n_cols]."""
        slot = self._slots[name]
        found = self._pages.sums(slot, 0, slot.n_values)
        with np.errstate(over="ignore"):
            found = found * np.float32(slot.scale)
        return found.reshape(slot.n_mat, slot.n_cols)

    def filtered(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Imatrix:
        """The same file with only the entries whose names contain one of ``include`` and none of ``exclude``."""
        kept = {
            name: slot
            for name, slot in self._slots.items()
            if (not include or any(part in name for part in include)) and not any(part in name for part in exclude)
        }
        return self._with(kept)

    def only(self, names: Iterable[str]) -> Imatrix:
        """The same file with these entries alone."""
        return self._with({name: self._slots[name] for name in names})

    def renamed(self, new_name: Callable[[str], str | None]) -> Imatrix:
        """The same file with its entries under other names; those whose new name is None are left out."""
        named = {
            new: replace(slot, name=new) for old, slot in self._slots.items() if (new := new_name(old)) is not None
        }
        return self._with(named)

    def with_experts(self, experts: Mapping[str, int], *, keep_fillers: bool = False) -> Imatrix:
        """The same file with the named entries cut into that many matrices, fillers counted as not reached.

        ``keep_fillers`` takes matrices that are nothing but 1 for what a model saw.
        """
        return self._with(
            {name: self._split(slot, experts.get(name, 0), keep_fillers) for name, slot in self._slots.items()}
        )

    def without_matrices(self, dropped: Mapping[str, Iterable[int]]) -> Imatrix:
        """The same file with these matrices of these entries counted as not reached, whatever their values are."""
        slots = dict(self._slots)
        for name, which in dropped.items():
            indices = frozenset(which)
            counts = slots[name].counts.copy()
            counts[list(indices)] = 0
            slots[name] = replace(slots[name], counts=counts, dropped=indices)
        return self._with(slots)

    def bad_values(self) -> list[BadValue]:
        """The first value of every matrix that is no importance: NaN, infinite, or a negative sum of squares."""
        return [bad for slot in self._slots.values() for bad in self._pages.bad_values(slot)]

    def inferred_experts(self) -> dict[str, int]:
        """Entry -> number of experts where the older format does not say, from the width of the layer's router."""
        return experts_by_routers({name: self.shape(name) for name in self._slots})

    def check_finite(self) -> None:
        """Reads every importance once, 4 MiB at a time; ImatrixError naming tensor, matrix and column of a bad one."""
        for slot in self._slots.values():
            for start, stop in pieces(slot):
                self._pages.sums(slot, start, stop)

    def check_values(self) -> tuple[str, ...]:
        """``contradictions`` after a look at every value; ImatrixError like ``check_finite``, for signed sums too."""
        self.check_finite()
        return self.contradictions()

    def contradictions(self) -> tuple[str, ...]:
        """Warnings about sums that cannot stand together. Reads only where that can be: unused matrices, signed sums.

        ImatrixError for a signed sum that is no number.
        """
        slots = self._slots.values()
        idle = [slot.name for slot in slots if slot.n_calls is None and self._idle(slot)]
        impossible = [slot.name for slot in slots if slot.signed_at is not None and self._impossible(slot)]
        said = several(idle, "sums of squares without any token; they are taken as not reached")
        return (*said, *several(impossible, "(sum x)^2 above count * sum x^2, which cannot be: inconsistent sums"))

    def _idle(self, slot: Slot) -> bool:
        """Whether a matrix that no token reached has sums."""
        starts = np.flatnonzero(slot.counts == 0) * slot.n_cols
        return any(self._pages.sums(slot, start, start + slot.n_cols).any() for start in starts.tolist())

    def _impossible(self, slot: Slot) -> bool:
        """Whether a signed sum is larger than its sum of squares allows."""
        found = False
        for start, stop in pieces(slot):
            sums = self._pages.sums(slot, start, stop).astype(np.float64)
            counts = slot.counts[np.arange(start, stop) // slot.n_cols]
            signed = self._pages.signed(slot, start, stop).astype(np.float64)
            found |= bool((signed**2 > counts * sums * (1 + _ROUNDING)).any())
        return found

    def stats(self) -> pd.DataFrame:
        """One row of statistics per entry (``figures.TensorStatistics``), sorted by kind and layer."""
        from gguftool.imatrix.figures import TensorStatistics, frame

        return frame(TensorStatistics, self._tensor_statistics(), self.path.name)

    def layers(self, *, distinct: bool = True) -> pd.DataFrame:
        """One row of statistics per layer (``figures.LayerStatistics``).

        ``distinct`` counts an input that several tensors see once, where the column does that at all.
        """
        from gguftool.imatrix.figures import LayerStatistics, frame
        from gguftool.imatrix.layers import layer_statistics

        return frame(LayerStatistics, layer_statistics(self._tensor_statistics(), distinct=distinct), self.path.name)

    def _tensor_statistics(self) -> tuple[TensorStatistics, ...]:
        """Computed when they are first asked for: they are few numbers, from a walk over the whole file."""
        from gguftool.imatrix.statistics import tensor_statistics

        if self._statistics is None:
            self._statistics = tuple(tensor_statistics(self.with_experts(self.inferred_experts())))
        return self._statistics

    def coverage(self) -> pd.DataFrame:
        """One row per entry (``coverage.TensorCoverage``): matrices reached, tokens per matrix; no values are read."""
        from gguftool.imatrix.coverage import TensorCoverage, tensor_coverage
        from gguftool.imatrix.figures import frame

        return frame(TensorCoverage, tensor_coverage(self.with_experts(self.inferred_experts())), self.path.name)

    def close(self) -> None:
        """Closes the file, for the views made of it too."""
        self._pages.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Imatrix({str(self.path)!r}, {self.format}, {len(self._slots)} entries)"

    def _with(self, slots: Mapping[str, Slot]) -> Imatrix:
        view = Imatrix(self.path, self._pages, replace(self._contents, slots=slots))
        view._sha256 = self._sha256
        return view

    def _split(self, slot: Slot, n_mat: int, keep_fillers: bool = False) -> Slot:
        """The slot cut into ``n_mat`` matrices of one count; 0 or what it has already leaves it."""
        if n_mat in (0, slot.n_mat):
            return slot
        if slot.n_mat != 1 or n_mat < 1 or slot.n_cols % n_mat:
            raise ImatrixError(
                self.path,
                f"'{slot.name}' has {slot.n_mat} x {slot.n_cols} values, which cannot be cut into {n_mat} matrices",
            )
        cut = replace(slot, n_mat=n_mat, n_cols=slot.n_cols // n_mat, counts=np.repeat(slot.counts, n_mat))
        if keep_fillers:
            return cut
        key = (slot.name, n_mat)
        if key not in self._splits:
            self._splits[key] = replace(cut, counts=self._without_fillers(cut))
        return self._splits[key]

    def _without_fillers(self, slot: Slot) -> npt.NDArray[np.int64]:
        """Counts of a slot with 0 for every matrix that is nothing but the writers' 1. Most are told by one value."""
        counts = slot.counts.copy()
        if not slot.unit_is_filler:
            return counts
        for matrix in range(slot.n_mat):
            start = matrix * slot.n_cols
            if float(self._pages.floats(slot.sums_at + 4 * start, 1)[0]) != slot.n_calls:
                continue
            if (self._pages.sums(slot, start, start + slot.n_cols) == slot.n_calls).all():
                counts[matrix] = 0
        return counts


def open_imatrix(
    path: str | os.PathLike[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    chunk_size: int | None = None,
) -> Imatrix:
    """The importance matrix in a file, GGUF or the older binary form, told apart by its first bytes.

    ``include`` and ``exclude`` are substrings of entry names (``filtered``). ``chunk_size``: tokens per chunk of a file
    of the older form, which does not know it. ImatrixError or FormatError for a file that is none or is damaged; a file
    that starts as a GGUF is never tried as anything else. Values are checked when they are read.
    """
    place = Path(path)
    if stat.S_ISDIR(os.stat(place).st_mode):
        raise IsADirectoryError(21, "is a folder, not an importance matrix", str(place))
    pages = Pages(place)
    try:
        contents = scan_gguf(pages, place) if pages.read(0, 4) == b"GGUF" else scan_legacy(pages, chunk_size)
    except BaseException:
        pages.close()
        raise
    found = Imatrix(place, pages, contents)
    return found.filtered(include, exclude) if include or exclude else found
