"""Several importance matrices as one: sums and token counts are added, so that a token weighs the same in every file.

A weight per file multiplies its sums and counts; counts are then rounded to whole tokens and the means stay. Where one
file has a count per matrix and another one for all, that one counts for each of them, llama-imatrix's rule: the weights
of those experts are guesses, and the caller is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gguftool.errors import ImatrixError
from gguftool.format.metadata import Metadata
from gguftool.imatrix.contents import CHUNK_SIZE, several
from gguftool.imatrix.file import Imatrix, ImatrixEntry
from gguftool.imatrix.matrices import Matrices, Outline, count_chunks, in_order, matrices_of, outline_of

_Holder = tuple[Imatrix, float]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Merged:
    """The merge, not yet read, and what the caller must know of it."""

    matrices: Matrices
    warnings: tuple[str, ...]


def merge(sources: Sequence[Imatrix], weights: Sequence[float] | None = None) -> Merged:
    """All entries of all sources, added up in float64 when they are read, one entry at a time.

    Signed sums stay where every file that saw the tensor has them. ImatrixError if shapes disagree.
    """
    shares = [1.0] * len(sources) if weights is None else list(weights)
    cut, guessed = _cut_alike(sources)
    holders: dict[str, list[_Holder]] = {}
    for source, share in zip(cut, shares, strict=True):
        for name in source.names:
            holders.setdefault(name, []).append((source, share))
    outlines = in_order(_outline(name, held) for name, held in holders.items())
    signed = {outline.name: outline.signed for outline in outlines}

    def read(name: str) -> ImatrixEntry:
        return _added(name, holders[name], signed[name])

    size, warnings = _chunk_size(sources)
    extra, said = _extra(sources)
    # One file alone is only converted: it may hold more chunks than its counts tell.
    chunks = count_chunks(outlines, size) if len(sources) > 1 else matrices_of(sources[0], size).chunk_count
    datasets = tuple(dataset for source in sources for dataset in source.datasets)
    warnings += said + several(guessed, "a file has one token count for all matrices, so those weights are guesses")
    partial = [name for name, held in holders.items() if len(held) < len(sources)]
    warnings += several(partial, "not in every file: are all of the same model?")
    warnings += several(_half_signed(holders, signed), "not every file has signed sums, so they are left out")
    return Merged(Matrices(outlines, read, datasets, chunks, size, extra), tuple(warnings))


def _cut_alike(sources: Sequence[Imatrix]) -> tuple[list[Imatrix], list[str]]:
    """The sources with every entry in as many matrices as any of them knows, and the names where that was needed."""
    most: dict[str, tuple[int, int, Imatrix]] = {}
    for source in sources:
        for name in source.names:
            n_mat, n_cols = source.shape(name)
            if name not in most or n_mat > most[name][0]:
                most[name] = n_mat, n_cols, source
    guessed: dict[str, None] = {}
    cut = []
    for source in sources:
        experts = {}
        for name in source.names:
            shape, (n_mat, n_cols, other) = source.shape(name), most[name]
            if shape == (n_mat, n_cols):
                continue
            if shape != (1, n_mat * n_cols):
                raise ImatrixError(
                    source.path,
                    f"'{name}' has {shape[0]} x {shape[1]} values, but {n_mat} x {n_cols} in {other.path}: they are of "
                    "different models",
                )
            experts[name] = n_mat
            guessed[name] = None
        cut.append(source.with_experts(experts) if experts else source)
        if source.format == "dat" and len(sources) > 1:
            guessed |= dict.fromkeys(name for name in source.names if most[name][0] > 1)
    return cut, list(guessed)


def _outline(name: str, holders: list[_Holder]) -> Outline:
    total = np.zeros(holders[0][0].shape(name)[0])
    for source, share in holders:
        total += share * source.counts(name)
    signed = all(source.has_signed(name) for source, _ in holders if source.counts(name).any())
    signed &= any(source.has_signed(name) for source, _ in holders)
    return replace(outline_of(holders[0][0], name), counts=_whole(total), signed=signed)


def _whole(counts: _Floats) -> npt.NDArray[np.int64]:
    """Rounded to whole tokens; a matrix that was reached stays reached."""
    return np.where(counts > 0, np.maximum(np.rint(counts), 1), 0).astype(np.int64)


def _added(name: str, holders: list[_Holder], signed: bool) -> ImatrixEntry:
    n_mat, n_cols = holders[0][0].shape(name)
    sums, counts = np.zeros((n_mat, n_cols)), np.zeros(n_mat)
    signs = np.zeros((n_mat, n_cols)) if signed else None
    for source, share in holders:
        entry = source.entry(name)
        counts += share * entry.counts
        _add(sums, entry.sums, entry.counts, share)
        if signs is not None and entry.signed is not None:
            _add(signs, entry.signed, entry.counts, share)
    whole = _whole(counts)
    if (whole != counts).any():
        scale = np.divide(whole, counts, out=np.zeros_like(counts), where=counts > 0)[:, None]
        sums *= scale
        if signs is not None:
            signs *= scale
    return ImatrixEntry(name, n_mat, n_cols, sums, whole, signs)


def _add(total: _Floats, sums: _Floats, counts: npt.NDArray[np.int64], share: float) -> None:
    """Adds one file's sums, which nobody else uses, to the total; sums without a token are no measurement."""
    if share != 1:
        sums *= share
    if not counts.all():
        sums[counts == 0] = 0
    total += sums


def _half_signed(holders: dict[str, list[_Holder]], signed: dict[str, bool]) -> list[str]:
    return [n for n, held in holders.items() if not signed[n] and any(source.has_signed(n) for source, _ in held)]


def _chunk_size(sources: Iterable[Imatrix]) -> tuple[int, list[str]]:
    """The first chunk size that a source knows, and a warning where they differ."""
    known = [(source.chunk_size, source.path.name) for source in sources if source.chunk_size]
    if not known:
        return CHUNK_SIZE, []
    first = known[0][0]
    other = next(((size, name) for size, name in known if size != first), None)
    if other is None:
        return first, []
    return first, [
        f"chunks of {first} tokens in {known[0][1]}, of {other[0]} in {other[1]}: the output says {first}; no mean "
        "depends on it"
    ]


def _extra(sources: Iterable[Imatrix]) -> tuple[Metadata, list[str]]:
    """Extra metadata on which all that have them agree, and a warning that names the others."""
    found: dict[str, object] = {}
    odd: dict[str, None] = {}
    for source in sources:
        for key, value in source.extra.entries():
            if found.setdefault(key, value) != value:
                odd[key] = None
    kept = Metadata({key: value for key, value in found.items() if key not in odd})  # type: ignore[misc]
    return kept, several(list(odd), "metadata with different values in the files, left out")
